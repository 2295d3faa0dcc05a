/* SPDX-License-Identifier: MIT */
/* How a bare responder's threads stand back for their clients: see core/session/placement.c. */
#ifndef BENCH_YIELDING_H
#define BENCH_YIELDING_H

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

/* The calling thread, and those that it makes. */
static inline void yield_thread(void)
{
    struct sched_param param = { 0 };

    sched_setscheduler(0, SCHED_IDLE, &param);
}

/* The whole session, if this process leads one. */
static inline void yield_group(const char *program)
{
    int fd;

    if (getsid(0) != getpid())
        return;
    fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "19", 2) < 0)
        fprintf(stderr, "%s: the session's group keeps its nice value\n", program);
    if (fd >= 0)
        close(fd);
}

#endif
