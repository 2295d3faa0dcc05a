/* SPDX-License-Identifier: MIT */
/* later.h - requests that another thread answers, each 1 ms after it came: first in, first out. */
#ifndef LATER_H
#define LATER_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#define LATER_ROOM 1024u

struct later {
    void (*answer)(void *who, uint64_t unique, uint64_t length);
    void *who;
    uint64_t unique, length;
    struct timespec due;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t some;
    struct later queue[LATER_ROOM];
    unsigned head, tail;
} laters = { .lock = PTHREAD_MUTEX_INITIALIZER, .some = PTHREAD_COND_INITIALIZER };

static void *later_main(void *unused)
{
    (void)unused;
    for (;;) {
        struct later l;

        pthread_mutex_lock(&laters.lock);
        while (laters.head == laters.tail)
            pthread_cond_wait(&laters.some, &laters.lock);
        l = laters.queue[laters.head++ % LATER_ROOM];
        pthread_mutex_unlock(&laters.lock);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &l.due, NULL);
        l.answer(l.who, l.unique, l.length);
    }
    return NULL;
}

/* Start that thread, which takes no signals. 0, or an errno. */
static int later_begin(void)
{
    pthread_t thread;
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&thread, NULL, later_main, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static void later_answer(struct later l)
{
    clock_gettime(CLOCK_MONOTONIC, &l.due);
    l.due.tv_nsec += 1000000;
    if (l.due.tv_nsec >= 1000000000) {
        l.due.tv_sec++;
        l.due.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&laters.lock);
    laters.queue[laters.tail++ % LATER_ROOM] = l;
    pthread_cond_signal(&laters.some);
    pthread_mutex_unlock(&laters.lock);
}

#endif
