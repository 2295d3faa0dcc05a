/* SPDX-License-Identifier: MIT */
/* rings.c - whether requests come over io_uring, the rings of a session, and their end. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

#define DRAIN_NS (MF_SECOND / 2) /* where all readers get to run it takes no time */
#define DRAIN_LOOK_US 200
#define DEFAULT_PAGES 32u /* of a request, where INIT settled no number */

/* Whose rings they would be: the system's, or those of a virtual kernel. NULL: it has none. */
static const struct mf__uring_sys *ring_system(const struct mf_session *s, void **kernel)
{
    *kernel = NULL;
    if (s->channels[0]->fd >= 0)
        return &mf__uring_system;
    return mf__memory_uring(s->channels[0], kernel);
}

/* Why not, in words; NULL: rings may be tried. */
static const char *excluded(const struct mf_session *s, uint64_t offered, bool possible)
{
    if (!possible)
        return "the connection is one in memory";
    if (s->opts.uring == MF_URING_OFF)
        return "io_uring is off by option";
    if (!(offered & FUSE_OVER_IO_URING))
        return "the kernel does not offer it: fuse's parameter enable_uring is off, or the kernel is older than 6.14";
    if (s->opts.clone_fd == MF_CLONE_REQUIRE)
        return "clones of the device are required by option";
    if (s->opts.flags & MF_OPT_INLINE)
        return "the calling thread is the only reader";
    if (s->opts.readers == 1 && s->opts.uring != MF_URING_REQUIRE)
        return "one reader was asked for";
    return NULL;
}

/* Bytes of the largest payload in the kernel's reckoning: a request's or an answer's. */
static uint32_t payload_size(const struct mf_session *s)
{
    uint32_t pages = s->terms.flags & FUSE_MAX_PAGES ? s->terms.max_pages : DEFAULT_PAGES;
    uint32_t size = pages * MF__PAGE;

    if (size < s->terms.max_write)
        size = s->terms.max_write;
    return size < FUSE_MIN_READ_BUFFER ? FUSE_MIN_READ_BUFFER : size;
}

/* A ring was refused, and with it the mount's readiness for any: the readers of all rings go to the device. */
static void refused(void *user, int error)
{
    struct mf_session *s = user;

    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_refuse(s->rings[i], error);
}

static bool may_wait(void *user, uint32_t opcode)
{
    return mf__op_may_wait(user, opcode);
}

static void leave(void *user)
{
    (void)user;
    mf__leave_language(mf__self);
}

static int make_rings(struct mf_session *s, const struct mf__uring_sys *sys, void *kernel)
{
    uint32_t queues = sys->queues(kernel);
    uint32_t count = s->opts.readers && s->opts.readers < queues ? s->opts.readers : queues;
    struct mf__ring_opts opts = { .sys = sys,
                                  .kernel = kernel,
                                  .device = s->channels[0],
                                  .queues = queues,
                                  .depth = MF__RING_DEPTH,
                                  .max_payload = payload_size(s),
                                  .refused = refused,
                                  .may_wait = may_wait,
                                  .leave = s->hooks.leave ? leave : NULL,
                                  .user = s };
    int rc = 0;

    if (count > MF__MAX_READERS / 2)
        count = MF__MAX_READERS / 2;
    opts.step = count;
    while (opts.depth > 2 && opts.depth * queues > MF__RING_BUDGET)
        opts.depth /= 2;
    s->rings = calloc(count, sizeof(struct mf__channel *));
    if (!s->rings)
        return -ENOMEM;
    s->ring_queues = queues;
    mf__judge_unhandled(s);
    opts.others = count - 1;
    while (rc == 0 && s->ring_count < count) {
        opts.first_queue = opts.index = s->ring_count;
        rc = mf__ring_channel(&opts, &s->rings[s->ring_count]);
        s->ring_count += rc == 0;
        opts.last = s->rings[0];
        opts.others = 0;
    }
    return rc;
}

static void unmake_rings(struct mf_session *s)
{
    while (s->ring_count)
        mf__channel_put(s->rings[--s->ring_count]);
    free(s->rings);
    s->rings = NULL;
}

static int no_rings(struct mf_session *s, int rc, struct mf_error *err)
{
    s->terms.transport = s->channels[0]->ops->kind;
    s->terms.flags &= ~FUSE_OVER_IO_URING;
    if (s->opts.uring == MF_URING_REQUIRE)
        return mf__errorf(err, rc, "io_uring is required but cannot be used: %s", s->transport_reason);
    return 0;
}

int mf__transport_choose(struct mf_session *s, uint64_t offered, struct mf_error *err)
{
    void *kernel;
    const struct mf__uring_sys *sys = ring_system(s, &kernel);
    const char *why = excluded(s, offered, sys != NULL);
    int rc;

    if (why) {
        snprintf(s->transport_reason, sizeof(s->transport_reason), "%s", why);
        return no_rings(s, -ENOTSUP, err);
    }
    rc = mf__ring_probe(sys, kernel, s->transport_reason, sizeof(s->transport_reason));
    if (rc < 0)
        return no_rings(s, rc, err);
    rc = make_rings(s, sys, kernel);
    if (rc < 0) {
        unmake_rings(s);
        snprintf(s->transport_reason, sizeof(s->transport_reason), "no rings: %s", mf__strerror(-rc));
        return no_rings(s, rc, err);
    }
    s->terms.transport = MF_TRANSPORT_URING;
    s->terms.flags |= FUSE_OVER_IO_URING;
    s->serialize = s->opts.readers == 1;
    snprintf(s->transport_reason, sizeof(s->transport_reason), "the kernel offers io_uring: %u rings for %u queues",
             s->ring_count, s->ring_queues);
    if (kernel)
        s->ring_queues = 0; /* they are no CPUs of this machine: nobody is bound to one */
    return 0;
}

void mf__rings_drain(struct mf_session *s)
{
    uint64_t deadline = mf__now_ns() + DRAIN_NS;

    for (uint32_t i = 0; i < s->ring_count; i++) {
        while (!mf__ring_take_back(s->rings[i]) && mf__now_ns() < deadline)
            usleep(DRAIN_LOOK_US);
    }
}

void mf__rings_shut(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_shut(s->rings[i]);
    pthread_mutex_lock(&s->lock);
    s->rings_shut = true;
    pthread_cond_broadcast(&s->changed);
    while (s->holders && !s->abandoned)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
