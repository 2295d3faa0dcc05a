/* SPDX-License-Identifier: MIT */
/*
 * slow_fs.h - handlers that take their time, as a responder without an engine has them: the files of bench/handlers
 * whose readers may wait in their own threads, and the one that another thread answers. Else like null_fs.h.
 */
#ifndef SLOW_FS_H
#define SLOW_FS_H

#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "later.h"
#include "null_fs.h"

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

static bool slow_is_deferred(uint32_t opcode, uint64_t node)
{
    return opcode == FUSE_READ && node == NODE_FILE0 + SLOW_FOREIGN_1MS;
}

static void slow_begin(void)
{
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
}

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    if (opcode == FUSE_LOOKUP)
        return slow_lookup(node, name, body);
    if (opcode == FUSE_READ)
        slow_wait(node);
    return null_answer(opcode, node, args, name, body);
}

#endif
