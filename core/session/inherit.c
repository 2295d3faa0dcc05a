/* SPDX-License-Identifier: MIT */
/*
 * inherit.c - threads and programs that handlers start shall not run like readers.
 *
 * A new thread or process has the scheduling class and the CPUs of the thread that made it. Readers that yield are in
 * SCHED_IDLE and bound to one CPU: a pool of workers that a handler makes at its first use, or a program that it runs,
 * would stay that way for good, and starve on a busy machine. There is no hook for that, so the monitor looks for such
 * heirs: among the threads when their number has changed, and among the children of each reader. Whatever is in
 * SCHED_IDLE on a single CPU, and is no reader, is taken for one. A reader whose handler goes on for longer is no reader
 * for that time, and runs like any thread; so do its heirs. Where the process may not leave SCHED_IDLE the first heir is
 * the last: readers stop yielding then.
 */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "session/session.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)

#define SWEEP_LOOKS 64u /* the number of threads may be the same although they are others */

static bool is_heir(pid_t id)
{
    cpu_set_t set;

    return (sched_getscheduler(id) & ~SCHED_RESET_ON_FORK) == SCHED_IDLE &&
           sched_getaffinity(id, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
}

static bool set_free(const struct mf_session *s, pid_t id)
{
    struct sched_param param = { 0 };

    if (sched_setscheduler(id, SCHED_OTHER, &param) < 0)
        return false;
    (void)sched_setaffinity(id, sizeof(s->allowed), &s->allowed);
    return true;
}

static void free_heir(struct mf_session *s, pid_t id, const char *what)
{
    if (!is_heir(id))
        return;
    if (set_free(s, id)) {
        mf__logf(&s->log, MF_LOG_INFO, "%s %d, which a handler started, is scheduled like any other now", what,
                 (int)id);
        return;
    }
    (void)sched_setaffinity(id, sizeof(s->allowed), &s->allowed);
    if (!s->place.given_up) {
        s->place.given_up = true;
        mf__logf(&s->log, MF_LOG_WARNING,
                 "%s %d, which a handler started, stays in class SCHED_IDLE, which this process may not leave: readers "
                 "yield no more (the option placement=free keeps them from it at all)",
                 what, (int)id);
    }
}

static void free_threads(struct mf_session *s)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        uint32_t tid = (uint32_t)strtoul(entry->d_name, NULL, 10);

        if (tid && !mf__registry_has_reader(tid))
            free_heir(s, (pid_t)tid, "thread");
    }
    if (dir)
        closedir(dir);
}

static void free_children(struct mf_session *s, struct mf__reader *r)
{
    char text[512], *at = text, *end;
    long pid;

    if (mf__task_children(r, text, sizeof(text)) < 0)
        return;
    for (; (pid = strtol(at, &end, 10)) > 0; at = end)
        free_heir(s, (pid_t)pid, "process");
}

bool mf__may_have_heirs(struct mf__reader *r)
{
    return atomic_load(&r->state) == MF__READER_BUSY && r->same_looks < 2;
}

bool mf__reader_stuck(struct mf__reader *r)
{
    return r->same_looks >= 2 && atomic_load(&r->state) == MF__READER_BUSY &&
           atomic_load(&r->stats.requests) == r->looked_requests;
}

void mf__free_reader(struct mf__reader *r)
{
    pid_t tid = (pid_t)atomic_load(&r->tid);

    if (tid && sched_getscheduler(tid) == SCHED_IDLE && set_free(r->session, tid))
        atomic_store(&r->freed, true);
}

/* In one handler since the last look? Where its thread may not leave SCHED_IDLE there is nothing to be done. */
static void free_long_handler(struct mf__reader *r)
{
    uint64_t requests = atomic_load(&r->stats.requests);
    bool same = atomic_load(&r->state) == MF__READER_BUSY && requests == r->looked_requests;

    r->looked_requests = requests;
    r->same_looks = same ? r->same_looks + 1 : 0;
    if (r->same_looks == 2)
        mf__free_reader(r);
}

void mf__free_heirs(struct mf_session *s)
{
    struct stat st;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        free_long_handler(s->readers[i]);
        free_children(s, s->readers[i]);
    }
    if (stat("/proc/self/task", &st) < 0)
        return;
    if (st.st_nlink == s->place.threads && ++s->place.sweep % SWEEP_LOOKS)
        return;
    s->place.threads = st.st_nlink;
    free_threads(s);
}

void mf__take_back(struct mf__reader *r)
{
    if (!atomic_load_explicit(&r->freed, memory_order_relaxed) || !atomic_exchange(&r->freed, false))
        return;
    r->cpu = -1;
    r->place_mode = MF__PLACE_PLAIN;
}

#else

bool mf__may_have_heirs(struct mf__reader *r)
{
    (void)r;
    return false;
}

bool mf__reader_stuck(struct mf__reader *r)
{
    (void)r;
    return false;
}

void mf__free_heirs(struct mf_session *s)
{
    (void)s;
}

void mf__take_back(struct mf__reader *r)
{
    (void)r;
}

#endif
