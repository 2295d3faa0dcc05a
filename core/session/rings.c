/* SPDX-License-Identifier: MIT */
/* rings.c - whether requests come over io_uring, the rings of a session, and their end. */
#include <stdio.h>
#include <stdlib.h>

#include "session/session.h"
#include "transport/ring.h"

/* Why not, in words; NULL: rings may be tried. */
static const char *excluded(const struct mf_session *s, uint64_t offered)
{
    if (s->channels[0]->fd < 0)
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

static int make_rings(struct mf_session *s)
{
    uint32_t queues = mf__ring_queues();
    uint32_t count = s->opts.readers && s->opts.readers < queues ? s->opts.readers : queues;
    uint32_t payload = s->terms.max_write < 2 * MF__PAGE ? 2 * MF__PAGE : s->terms.max_write;
    struct mf__ring_opts opts = {
        .device = s->channels[0]->fd, .step = count, .queues = queues, .depth = MF__RING_DEPTH, .max_payload = payload
    };
    int rc = 0;

    if (count > MF__MAX_READERS / 2)
        opts.step = count = MF__MAX_READERS / 2;
    while (opts.depth > 2 && opts.depth * queues > MF__RING_BUDGET)
        opts.depth /= 2;
    s->rings = calloc(count, sizeof(struct mf__channel *));
    if (!s->rings)
        return -ENOMEM;
    s->ring_queues = queues;
    while (rc == 0 && s->ring_count < count) {
        opts.first_queue = opts.index = s->ring_count;
        rc = mf__ring_channel(&opts, &s->rings[s->ring_count]);
        s->ring_count += rc == 0;
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
    const char *why = excluded(s, offered);
    int rc;

    if (why) {
        snprintf(s->transport_reason, sizeof(s->transport_reason), "%s", why);
        return no_rings(s, -ENOTSUP, err);
    }
    rc = mf__ring_probe(s->transport_reason, sizeof(s->transport_reason));
    if (rc < 0)
        return no_rings(s, rc, err);
    rc = make_rings(s);
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
    return 0;
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
