/* SPDX-License-Identifier: MIT */
/*
 * slow MOUNTPOINT [options]: handlers that take their time, to see whom they keep waiting. A read's handler does
 * what the file's name says; each file holds 64 KiB of zeros, uncached. Equal to slow.py and go/main.go.
 *
 *   fast               answers at once
 *   sleep1ms, sleep5ms sleep in the handler
 *   sleep10ms-1in100   one in a hundred sleeps 10 ms, the others answer at once
 *   foreign1ms         answered after 1 ms, by another thread
 *   wait               until the caller gives up
 *   compute200us       200 us of CPU time
 *   never              does not return
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <manifuse/manifuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../later.h"

#define FILE_SIZE (64u << 10)
#define FIRST 2u
#define WAITERS 256

enum kind { FAST, SLEEP_1MS, SLEEP_5MS, SOME_SLEEP_10MS, FOREIGN_1MS, WAIT, COMPUTE_200US, NEVER, KINDS };

static const char *const names[KINDS] = {
    "fast", "sleep1ms", "sleep5ms", "sleep10ms-1in100", "foreign1ms", "wait", "compute200us", "never",
};
static char zeros[FILE_SIZE];

static struct mf_attr attr_of(uint64_t node)
{
    if (node == MF_ROOT)
        return (struct mf_attr){ .mode = S_IFDIR | 0555, .nlink = 2 };
    return (struct mf_attr){ .mode = S_IFREG | 0444, .nlink = 1, .size = FILE_SIZE };
}

static void slow_lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    struct mf_entry e = { .size = sizeof(e) };

    (void)parent, (void)user;
    for (unsigned i = 0; i < KINDS; i++) {
        if (strcmp(name, names[i]) == 0)
            e.node = FIRST + i;
    }
    if (e.node == 0) {
        mf_reply_err(req, ENOENT);
        return;
    }
    e.attr = attr_of(e.node);
    mf_reply_entry(req, &e);
}

static void slow_getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    struct mf_attr attr = attr_of(node);

    (void)fh, (void)user;
    mf_reply_attr(req, &attr, 0);
}

static void slow_open(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    struct mf_open open = { .size = sizeof(open), .flags = MF_OPEN_DIRECT_IO };

    (void)node, (void)flags, (void)user;
    mf_reply_open(req, &open);
}

/* ---- what the handlers do ---- */

static void sleep_us(long us)
{
    struct timespec t = { us / 1000000, us % 1000000 * 1000 };

    nanosleep(&t, NULL);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void compute(uint64_t ns)
{
    uint64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + ns;

    while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end) {
        for (volatile int i = 0; i < 500; i++)
            continue;
    }
}

static void reply_later(void *who, uint64_t unique, uint64_t length)
{
    (void)unique;
    mf_reply_data(who, zeros, length);
}

static void keep(struct mf_req *req, uint64_t length)
{
    if (mf_req_defer(req) < 0) {
        mf_reply_err(req, EIO);
        return;
    }
    later_answer((struct later){ .answer = reply_later, .who = req, .length = length });
}

/* Handlers that wait, found by the number of their request. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint64_t unique[WAITERS]; /* 0: nobody waits here, or no more */
} waiters = { .lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER };

static void slow_interrupted(struct mf_session *session, uint64_t unique, void *user)
{
    (void)session, (void)user;
    pthread_mutex_lock(&waiters.lock);
    for (int i = 0; i < WAITERS; i++) {
        if (waiters.unique[i] == unique)
            waiters.unique[i] = 0;
    }
    pthread_cond_broadcast(&waiters.change);
    pthread_mutex_unlock(&waiters.lock);
}

static void wait_until_interrupted(struct mf_req *req)
{
    uint64_t unique = mf_req_call(req)->unique;
    int place = 0;

    pthread_mutex_lock(&waiters.lock);
    while (place < WAITERS - 1 && waiters.unique[place])
        place++;
    waiters.unique[place] = unique;
    /* An interrupt that came before the place was taken found nobody. */
    while (waiters.unique[place] == unique && mf_req_interrupted(req) != 1)
        pthread_cond_wait(&waiters.change, &waiters.lock);
    waiters.unique[place] = 0;
    pthread_mutex_unlock(&waiters.lock);
}

static void slow_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    static _Atomic unsigned count;
    uint64_t length = in->offset < FILE_SIZE ? FILE_SIZE - in->offset : 0;

    (void)user;
    length = length < in->length ? length : in->length;
    switch (node - FIRST) {
    case SLEEP_1MS: sleep_us(1000); break;
    case SLEEP_5MS: sleep_us(5000); break;
    case SOME_SLEEP_10MS:
        if (atomic_fetch_add(&count, 1) % 100 == 0)
            sleep_us(10000);
        break;
    case FOREIGN_1MS: keep(req, length); return;
    case WAIT:
        wait_until_interrupted(req);
        mf_reply_err(req, EINTR);
        return;
    case COMPUTE_200US: compute(200000); break;
    case NEVER:
        for (;;)
            pause();
    default: break;
    }
    mf_reply_data(req, zeros, length);
}

static const struct mf_ops ops = {
    .size = sizeof(ops),
    .interrupted = slow_interrupted,
    .lookup = slow_lookup,
    .getattr = slow_getattr,
    .open = slow_open,
    .read = slow_read,
};

int main(int argc, char **argv)
{
    prctl(PR_SET_TIMERSLACK, 1); /* the kernel's 50 us are no part of what is measured */
    if (later_begin() != 0)
        return 1;
    return mf_main(argc, argv, &ops, NULL);
}
