/* SPDX-License-Identifier: MIT */
/*
 * placement.c - how ring readers stand towards their clients in the scheduler's eyes.
 *
 * A ring is fast because client and reader take turns on one CPU. A server that runs in a scheduling group of its
 * own (a session, with autogroup) loses that: at each answer the scheduler finds another CPU idle and moves the
 * client there. It leaves the client where it is if the reader counts for nothing: class SCHED_IDLE, and the
 * group at nice 19. On a machine that is busy with other things the same would starve the server. So readers
 * yield like that only as long as they are not kept waiting: the time that a thread was ready to run and did not
 * is in its schedstat, and a mean of more than LONG_WAIT_NS per turn ends it within some tens of milliseconds.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "session/session.h"

/* In words: where readers are bound to, and how they are scheduled now. */
void mf__placement_describe(struct mf_session *s, char *text, size_t room)
{
    const char *how = "scheduled as any thread";
    const char *where = "readers run on any CPU";

    if (s->opts.placement == MF_PLACEMENT_PINNED)
        where = "each reader is bound to a CPU, as asked";
    else if (s->ring_count && s->ring_count == s->ring_queues && s->opts.placement == MF_PLACEMENT_AUTO)
        where = "ring readers are bound to their queue's CPU";
    if (atomic_load(&s->place.mode) == MF__PLACE_YIELDING)
        how = "they yield to their clients, since the machine is quiet";
    else if (atomic_load(&s->place.mode) == MF__PLACE_PLAIN)
        how = "they do not yield, since the machine is busy";
    snprintf(text, room, "%s; %s", where, how);
}

#if defined(__linux__) && !defined(MF_NO_LINUX)

#ifndef SCHED_IDLE
#define SCHED_IDLE 5
#endif
#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000
#endif

#define LONG_WAIT_NS 250000u    /* clients of a saturated mount keep a reader waiting for a tenth of this */
#define SHORT_WAIT_NS 60000u    /* below this a plain reader may try to yield again */
#define ENOUGH_TURNS 16u        /* below this a window says nothing */
#define HOLD_NS (1 * MF_SECOND) /* at first, before it tries again; doubled each time that goes wrong */
#define HOLD_MAX_NS (64 * MF_SECOND)
#define TRIAL_NS (MF_SECOND / 5) /* a relapse within this time counts as gone wrong */

static _Atomic(struct mf_session *) autogroup_owner; /* one session of the process may set the group's nice */

/*
 * The group's nice value is the whole session's: only a process that leads its own may change it. And only where
 * the monitor stands above it: at nice 19 it could not see any more that the group starves.
 */
static void set_group_nice(struct mf_session *s, int nice)
{
    struct mf_session *none = NULL;
    char text[16];
    int fd;

    if (getsid(0) != getpid() || !s->place.watchful)
        return;
    if (!atomic_compare_exchange_strong(&autogroup_owner, &none, s) && none != s)
        return;
    fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, (size_t)snprintf(text, sizeof(text), "%d", nice)) < 0)
        mf__logf(&s->log, MF_LOG_DEBUG, "autogroup keeps its nice value: %s", mf__strerror(errno));
    close(fd);
    if (nice == s->place.group_nice)
        atomic_store(&autogroup_owner, NULL);
}

static int group_nice(void)
{
    char text[64], *nice;
    int value = 0;

    if (mf__read_text("/proc/self/autogroup", text, sizeof(text)) == 0 && (nice = strstr(text, "nice ")))
        sscanf(nice, "nice %d", &value);
    return value;
}

static void set_mode(struct mf_session *s, uint32_t mode)
{
    s->place.since_ns = mf__now_ns();
    atomic_store(&s->place.mode, mode);
    set_group_nice(s, mode == MF__PLACE_YIELDING ? 19 : s->place.group_nice);
    mf__logf(&s->log, MF_LOG_INFO, "ring readers %s",
             mode == MF__PLACE_YIELDING ? "yield to their clients" : "run as others");
}

/* On the monitor's thread, before it watches. Threads that it makes do not inherit its class. */
void mf__placement_start(struct mf_session *s)
{
    struct sched_param first = { .sched_priority = 1 };

    if (!s->ring_count || s->ring_count != s->ring_queues || s->opts.placement != MF_PLACEMENT_AUTO)
        return;
    s->place.hold_ns = HOLD_NS;
    s->place.group_nice = group_nice();
    s->place.watchful = sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
    set_mode(s, MF__PLACE_YIELDING);
}

void mf__placement_stop(struct mf_session *s)
{
    if (atomic_load(&s->place.mode) == MF__PLACE_YIELDING)
        set_mode(s, MF__PLACE_PLAIN);
}

/* Ready to run, and not once on a CPU since the last look: that is not in its schedstat yet. */
static bool starved(const struct mf__reader *r, uint64_t count)
{
    return count == r->turns && !mf__thread_sleeps(atomic_load(&r->tid));
}

/* Waiting time and turns of all ring readers since the last look. */
static void look_at_waits(struct mf_session *s, uint64_t *wait_ns, uint64_t *turns)
{
    *wait_ns = *turns = 0;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        struct mf__crew *c = atomic_load(&r->crew);
        unsigned long long ran, waited, count;
        char text[128];

        if (!c || !c->ring)
            continue;
        if (mf__thread_file(atomic_load(&r->tid), "schedstat", text, sizeof(text)) < 0 ||
            sscanf(text, "%llu %llu %llu", &ran, &waited, &count) != 3)
            continue;
        if (r->turns && starved(r, count)) {
            *wait_ns += MF__PLACE_LOOK_NS;
            *turns += 1;
        } else if (r->turns && count >= r->turns) {
            *wait_ns += waited - r->waited_ns;
            *turns += count - r->turns;
        }
        r->waited_ns = waited;
        r->turns = count;
    }
}

void mf__placement_look(struct mf_session *s)
{
    uint32_t mode = atomic_load(&s->place.mode);
    uint64_t wait_ns, turns, age;

    if (!mode)
        return;
    look_at_waits(s, &wait_ns, &turns);
    age = mf__now_ns() - s->place.since_ns;
    if (mode == MF__PLACE_YIELDING && turns && wait_ns / turns > LONG_WAIT_NS) {
        if (age < TRIAL_NS && s->place.hold_ns < HOLD_MAX_NS)
            s->place.hold_ns *= 2;
        else if (age > s->place.hold_ns)
            s->place.hold_ns = HOLD_NS;
        set_mode(s, MF__PLACE_PLAIN);
    } else if (mode == MF__PLACE_PLAIN && age > s->place.hold_ns && turns > ENOUGH_TURNS &&
               wait_ns / turns < SHORT_WAIT_NS) {
        set_mode(s, MF__PLACE_YIELDING);
    }
}

bool mf__placement_apply(struct mf__reader *r, bool ring)
{
    uint32_t mode = ring ? atomic_load(&r->session->place.mode) : MF__PLACE_PLAIN;
    struct sched_param param = { 0 };

    if (mode == r->place_mode || (mode == MF__PLACE_PLAIN && r->place_mode == MF__PLACE_NONE))
        return true;
    if (sched_setscheduler(0, mode == MF__PLACE_YIELDING ? SCHED_IDLE : SCHED_OTHER, &param) < 0)
        return mode == MF__PLACE_YIELDING; /* without the right to return: another thread takes this one's place */
    r->place_mode = mode;
    return true;
}

#else

void mf__placement_start(struct mf_session *s)
{
    (void)s;
}

void mf__placement_stop(struct mf_session *s)
{
    (void)s;
}

void mf__placement_look(struct mf_session *s)
{
    (void)s;
}

bool mf__placement_apply(struct mf__reader *r, bool ring)
{
    (void)r;
    (void)ring;
    return true;
}

#endif
