/* SPDX-License-Identifier: MIT */
/*
 * tasks.c - what the system says of readers' threads, and text files of its own.
 *
 * The monitor reads the same few files many times a second, on a CPU that has just woken: opening one anew costs some
 * 80 us there, reading one that is open 20. So those of the first readers stay open.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "session/session.h"

#define KEPT_OPEN 32u /* readers: a machine of many CPUs shall keep its descriptors */

uint32_t mf__read_numbers(const char *text, uint64_t *out, uint32_t count)
{
    uint32_t n = 0;
    char *end;

    for (; n < count; n++, text = end) {
        out[n] = strtoull(text, &end, 10);
        if (end == text)
            break;
    }
    return n;
}

static int read_open(int fd, char *text, size_t room)
{
    ssize_t n = pread(fd, text, room - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return n > 0 ? 0 : -EIO;
}

int mf__read_text(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    if (fd < 0)
        return -errno;
    rc = read_open(fd, text, room);
    close(fd);
    return rc;
}

static void forget(struct mf__task_files *f)
{
    for (uint32_t i = 0; i < MF__TASK_FILES; i++) {
        if (f->fd[i] >= 0)
            close(f->fd[i]);
        f->fd[i] = -1;
    }
}

static int read_task_file(struct mf__reader *r, enum mf__task_file file, char *text, size_t room)
{
    static const char *const names[] = {
        [MF__TASK_STAT] = "stat", [MF__TASK_SCHEDSTAT] = "schedstat", [MF__TASK_CHILDREN] = "children"
    };
    uint32_t tid = atomic_load(&r->tid);
    struct mf__task_files *f = &r->files;
    char path[64];

    if (!tid)
        return -ESRCH;
    if (f->tid != tid)
        forget(f);
    f->tid = tid;
    if (f->fd[file] >= 0)
        return read_open(f->fd[file], text, room);
    snprintf(path, sizeof(path), "/proc/self/task/%u/%s", tid, names[file]);
    if (r->index >= KEPT_OPEN)
        return mf__read_text(path, text, room);
    f->fd[file] = open(path, O_RDONLY | O_CLOEXEC);
    return f->fd[file] < 0 ? -errno : read_open(f->fd[file], text, room);
}

void mf__tasks_forget(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        forget(&s->readers[i]->files);
}

bool mf__task_sleeps(struct mf__reader *r)
{
    char text[256];
    char *p;

    if (read_task_file(r, MF__TASK_STAT, text, sizeof(text)) < 0)
        return true;
    p = strrchr(text, ')');
    return !p || !p[1] || p[2] != 'R';
}

int mf__task_schedstat(struct mf__reader *r, uint64_t at[3])
{
    char text[128];
    int rc = read_task_file(r, MF__TASK_SCHEDSTAT, text, sizeof(text));

    if (rc < 0)
        return rc;
    return mf__read_numbers(text, at, 3) == 3 ? 0 : -EIO;
}

int mf__task_children(struct mf__reader *r, char *text, size_t room)
{
    int rc = read_task_file(r, MF__TASK_CHILDREN, text, room);

    return rc == -EIO ? 0 : rc; /* an empty file is what is there for the most part */
}

uint64_t mf__thread_sleeps(void)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    struct rusage usage;

    if (getrusage(RUSAGE_THREAD, &usage) == 0)
        return (uint64_t)usage.ru_nvcsw;
#endif
    return 0;
}

uint64_t mf__task_ran_ns(const struct mf__reader *r)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    uint32_t tid = atomic_load(&r->tid);
    clockid_t clock = (clockid_t)(~tid << 3 | 6u); /* as clock_getcpuclockid(3) makes it, for one thread */
    struct timespec ran;

    if (tid && clock_gettime(clock, &ran) == 0)
        return (uint64_t)ran.tv_sec * MF_SECOND + (uint64_t)ran.tv_nsec;
#else
    (void)r;
#endif
    return 0;
}
