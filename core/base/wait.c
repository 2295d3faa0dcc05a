/* SPDX-License-Identifier: MIT */
/* wait.c - waiting with a limit, which no change of the system's clock moves. */
#include <time.h>

#include "base/base.h"

void mf__cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool mf__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(ns / MF_SECOND);
    until.tv_nsec = (long)(ns % MF_SECOND);
    return pthread_cond_timedwait(cond, lock, &until) == 0;
}
