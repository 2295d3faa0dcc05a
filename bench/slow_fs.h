/* SPDX-License-Identifier: MIT */
/*
 * slow_fs.h - handlers that take their time, as a responder without an engine has them: the files of bench/handlers
 * whose readers may wait in their own threads, and the one that another thread answers. Else like null_fs.h. With
 * SLOW_PYTHON the handlers are Python's (slow_python.h), with SLOW_GO they are Go's (slow_go.h).
 */
#ifndef SLOW_FS_H
#define SLOW_FS_H

#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "null_fs.h"

typedef void slow_answer_fn(void *who, uint64_t unique, uint64_t length);

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

static bool slow_is_deferred(uint32_t opcode, uint64_t node)
{
    return opcode == FUSE_READ && node == NODE_FILE0 + SLOW_FOREIGN_1MS;
}

/* Of this thread and those that it starts: the kernel's 50 us are no part of what is measured. */
static void slow_timers(void)
{
    prctl(PR_SET_TIMERSLACK, 1);
}

#ifdef SLOW_PYTHON
#include "slow_python.h"
#elif defined(SLOW_GO)
#include "slow_go.h"
#else
#include "later.h"

static void slow_begin(void)
{
    slow_timers();
    if (later_begin() != 0) {
        fputs("cannot start the thread that answers later\n", stderr);
        exit(1);
    }
}

static void slow_defer(slow_answer_fn *answer, void *who, uint64_t unique, uint64_t length)
{
    later_answer((struct later){ .answer = answer, .who = who, .unique = unique, .length = length });
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

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    const struct timespec sleep = { .tv_nsec = opcode == FUSE_READ ? slow_sleep_ns(node) : 0 };

    if (sleep.tv_nsec)
        nanosleep(&sleep, NULL);
    if (opcode == FUSE_LOOKUP)
        return slow_lookup(node, name, body);
    return null_answer(opcode, node, args, name, body);
}

#endif
#endif
