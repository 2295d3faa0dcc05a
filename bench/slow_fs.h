/* SPDX-License-Identifier: MIT */
/*
 * slow_fs.h - handlers that take their time, as a responder without an engine has them: the files of bench/handlers
 * whose readers may wait in their own threads, and the one that another thread answers. Else like null_fs.h.
 *
 * Locked, they exclude each other while they compute, as handlers of Python do, and so does the thread that answers. For
 * how long is what a LOOKUP and a GETATTR take there on the mean, and for the others less than what a server in Python
 * takes of CPU time in user mode beyond one in C: 5 to 10 us for a read that sleeps, 16 to 21 for one that another thread
 * answers.
 */
#ifndef SLOW_FS_H
#define SLOW_FS_H

#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "later.h"
#include "null_fs.h"

#define AT_ONCE_NS 600
#define AROUND_WAIT_NS 2000 /* before it, and after it */
#define DEFERS_NS 4000
#define ANSWERS_NS 6000

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

static bool slow_is_deferred(uint32_t opcode, uint64_t node)
{
    return opcode == FUSE_READ && node == NODE_FILE0 + SLOW_FOREIGN_1MS;
}

static bool slow_locked;

/* A lock that is looked at for a while before it is slept for: it is held for less time than waking takes. */
static void slow_compute(long ns)
{
    static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
    struct timespec from, now;

    if (!slow_locked)
        return;
    pthread_mutex_lock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &from);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - from.tv_sec) * 1000000000 + now.tv_nsec - from.tv_nsec < ns);
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

static long slow_sleep_ns(uint64_t node)
{
    static _Atomic unsigned count;

    if (node == NODE_FILE0 + SLOW_SOME_10MS && atomic_fetch_add(&count, 1) % 100 == 0)
        return 10000000;
    return node == NODE_FILE0 + SLOW_1MS ? 1000000 : 0;
}

static void slow_read(uint64_t node)
{
    const struct timespec sleep = { .tv_nsec = slow_sleep_ns(node) };

    if (sleep.tv_nsec) {
        slow_compute(AROUND_WAIT_NS);
        nanosleep(&sleep, NULL);
        slow_compute(AROUND_WAIT_NS);
    } else {
        slow_compute(slow_is_deferred(FUSE_READ, node) ? DEFERS_NS : AT_ONCE_NS);
    }
}

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    if (opcode == FUSE_READ)
        slow_read(node);
    else
        slow_compute(AT_ONCE_NS);
    if (opcode == FUSE_LOOKUP)
        return slow_lookup(node, name, body);
    return null_answer(opcode, node, args, name, body);
}

#endif
