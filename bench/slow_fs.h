/* SPDX-License-Identifier: MIT */
/*
 * slow_fs.h - handlers that take their time, as a responder without an engine has them: the files of bench/handlers
 * whose readers may wait in their own threads, and the one that another thread answers. Else like null_fs.h.
 */
#ifndef SLOW_FS_H
#define SLOW_FS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "null_fs.h"

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

#define SLOW_DEFERRED 1024u

/* What another thread does about a request, 1 ms after it came: first in, first out. */
struct slow_deferred {
    void (*answer)(void *who, uint64_t unique, int size);
    void *who;
    uint64_t unique;
    int size;
    struct timespec due;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    struct slow_deferred queue[SLOW_DEFERRED];
    unsigned head, tail;
} slow_later = { .lock = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER };

static void *slow_answer_later(void *unused)
{
    (void)unused;
    for (;;) {
        struct slow_deferred d;

        pthread_mutex_lock(&slow_later.lock);
        while (slow_later.head == slow_later.tail)
            pthread_cond_wait(&slow_later.some, &slow_later.lock);
        d = slow_later.queue[slow_later.head++ % SLOW_DEFERRED];
        pthread_mutex_unlock(&slow_later.lock);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &d.due, NULL);
        d.answer(d.who, d.unique, d.size);
    }
    return NULL;
}

static void slow_defer(struct slow_deferred d)
{
    clock_gettime(CLOCK_MONOTONIC, &d.due);
    d.due.tv_nsec += 1000000;
    if (d.due.tv_nsec >= 1000000000) {
        d.due.tv_sec++;
        d.due.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&slow_later.lock);
    slow_later.queue[slow_later.tail++ % SLOW_DEFERRED] = d;
    pthread_mutex_unlock(&slow_later.lock);
    pthread_cond_signal(&slow_later.some);
}

static bool slow_is_deferred(uint32_t opcode, uint64_t node)
{
    return opcode == FUSE_READ && node == NODE_FILE0 + SLOW_FOREIGN_1MS;
}

/* Where signals are blocked already. */
static void slow_begin(void)
{
    pthread_t thread;

    prctl(PR_SET_TIMERSLACK, 1); /* the kernel's 50 us are no part of what is measured */
    if (pthread_create(&thread, NULL, slow_answer_later, NULL)) {
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
