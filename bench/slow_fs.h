/* SPDX-License-Identifier: MIT */
/*
 * slow_fs.h - handlers that take their time, as a responder without an engine has them: the files of bench/handlers
 * whose readers may wait in their own threads, and the one that another thread answers. Else like null_fs.h.
 *
 * Locked, they exclude each other while they compute, as handlers of Python do, for as long as these take on the mean of
 * a LOOKUP and a GETATTR, and once more when they have waited; so does who answers for them.
 */
#ifndef SLOW_FS_H
#define SLOW_FS_H

#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "later.h"
#include "null_fs.h"

#define SLOW_COMPUTES_NS 600

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

static bool slow_is_deferred(uint32_t opcode, uint64_t node)
{
    return opcode == FUSE_READ && node == NODE_FILE0 + SLOW_FOREIGN_1MS;
}

static bool slow_locked;

/* A lock that is looked at for a while before it is slept for: it is held for less time than waking takes. */
static void slow_compute(void)
{
    static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
    struct timespec from, now;

    if (!slow_locked)
        return;
    pthread_mutex_lock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &from);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - from.tv_sec) * 1000000000 + now.tv_nsec - from.tv_nsec < SLOW_COMPUTES_NS);
    pthread_mutex_unlock(&lock);
}

static void slow_begin(bool locked)
{
    slow_locked = locked;
    prctl(PR_SET_TIMERSLACK, 1); /* the kernel's 50 us are no part of what is measured */
    if (later_begin() != 0) {
        fputs("cannot start the thread that answers later\n", stderr);
        exit(1);
    }
}

static int slow_lookup(uint64_t parent, const char *name, void *body)
{
    static const char *const names[SLOW_FILES] = { "fast", "sleep1ms", "sleep10ms-1in100", "foreign1ms" };

    for (unsigned i = 0; i < SLOW_FILES; i++) {
        if (strcmp(name, names[i]) == 0)
            return null_entry(parent, NODE_FILE0 + i, body);
    }
    return -ENOENT;
}

static void slow_wait(uint64_t node)
{
    static _Atomic unsigned count;
    const struct timespec one = { .tv_nsec = 1000000 }, ten = { .tv_nsec = 10000000 };

    if (node == NODE_FILE0 + SLOW_1MS)
        nanosleep(&one, NULL);
    else if (node == NODE_FILE0 + SLOW_SOME_10MS && atomic_fetch_add(&count, 1) % 100 == 0)
        nanosleep(&ten, NULL);
    else
        return;
    slow_compute();
}

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    slow_compute();
    if (opcode == FUSE_LOOKUP)
        return slow_lookup(node, name, body);
    if (opcode == FUSE_READ)
        slow_wait(node);
    return null_answer(opcode, node, args, name, body);
}

#endif
