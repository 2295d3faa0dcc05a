/* SPDX-License-Identifier: MIT */
/* ring_make.c - whether rings can be had, making and unmaking them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/ring_private.h"

/* ---- can it be had? ------------------------------------------------------------------------------------ */

int mf__ring_probe(const struct mf__uring_sys *sys, void *kernel, char *reason, size_t room)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 };
    int fd = sys->setup(kernel, SUBMISSIONS, &p);

    if (fd < 0) {
        snprintf(reason, room, "io_uring_setup is refused here: %s", mf__strerror(-fd));
        return fd;
    }
    sys->close(kernel, fd);
    if (sys->queues(kernel) == 0) {
        snprintf(reason, room, "the number of possible CPUs is not known");
        return -ENOTSUP;
    }
    return 0;
}
/* ---- making and unmaking --------------------------------------------------------------------------- */

/* The kernel releases a ring only when all maps of it are gone, and the descriptor. */
static void ring_unmap(struct ring *r)
{
    void *kernel = r->opts.kernel;

    if (r->sqes)
        r->sys->unmap(kernel, r->sqes, r->sqes_size);
    if (r->maps)
        r->sys->unmap(kernel, r->maps, r->maps_size);
}

static void ring_release(struct ring *r)
{
    ring_unmap(r);
    r->sys->close(r->opts.kernel, r->fd);
}

void mf__ring_shut(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (!atomic_load(&r->shut))
        (void)mf__ring_commit_waiting(r); /* no reader is left to do it; the entries end with the ring */
    pthread_mutex_lock(&r->submit);
    if (!atomic_exchange(&r->shut, true))
        ring_release(r);
    mf__ring_unlock(r);
}

static void init_locks(struct ring *r)
{
    pthread_mutex_init(&r->submit, NULL);
    pthread_mutex_init(&r->follow, NULL);
    mf__cond_init(&r->called);
}

void mf__ring_forget(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (!atomic_exchange(&r->shut, true))
        ring_unmap(r);
    atomic_store(&r->waiting, 0);
    init_locks(r);
}

static void ring_free(struct ring *r)
{
    mf__region_free(&r->pools);
    mf__region_free(&r->payloads);
    mf__region_free(&r->headers);
    free(r->alive);
    free(r->entries);
    pthread_cond_destroy(&r->called);
    pthread_mutex_destroy(&r->follow);
    pthread_mutex_destroy(&r->submit);
    free(r);
}

void mf__ring_close(struct mf__channel *ch)
{
    mf__ring_shut(ch);
    ring_free(ring_of(ch));
}

static int ring_map(struct ring *r, const struct mf__uring_params *p)
{
    size_t sq_size = p->sq.c + p->sq_entries * sizeof(uint32_t);
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(struct mf__cqe);
    void *at;
    int rc;

    r->maps_size = sq_size > cq_size ? sq_size : cq_size;
    rc = r->sys->map(r->opts.kernel, r->fd, r->maps_size, 0, &at);
    if (rc < 0)
        return rc;
    r->maps = at;
    r->sqes_size = p->sq_entries * sizeof(struct mf__sqe);
    rc = r->sys->map(r->opts.kernel, r->fd, r->sqes_size, MF__URING_OFF_SQES, &at);
    if (rc < 0)
        return rc;
    r->sqes = at;
    r->sq_head = (void *)(r->maps + p->sq.head);
    r->sq_tail = (void *)(r->maps + p->sq.tail);
    r->sq_mask = *(uint32_t *)(void *)(r->maps + p->sq.ring_mask);
    r->sq_array = (void *)(r->maps + p->sq.c);
    r->cq_head = (void *)(r->maps + p->cq.head);
    r->cq_tail = (void *)(r->maps + p->cq.tail);
    r->cq_mask = *(uint32_t *)(void *)(r->maps + p->cq.ring_mask);
    r->cqes = (void *)(r->maps + p->cq.b);
    return 0;
}

static int ring_open(struct ring *r)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 | MF__URING_SETUP_CQSIZE,
                                  .cq_entries = 2 * (r->count + SUBMISSIONS) };
    int rc;

    r->submissions = !r->opts.last && r->opts.depth > SUBMISSIONS ? r->opts.depth : SUBMISSIONS;
    r->fd = r->sys->setup(r->opts.kernel, r->submissions, &p);
    if (r->fd < 0)
        return r->fd;
    rc = ring_map(r, &p);
    if (rc < 0)
        ring_release(r);
    return rc;
}

static void entry_init(struct ring *r, uint32_t i, uint32_t queue)
{
    struct entry *e = &r->entries[i];
    size_t head_room = (size_t)mf__round_up(sizeof(*e->head), MF__CACHE_LINE);

    e->queue = queue;
    e->head = (void *)(r->headers.base + i * head_room);
    e->payload = r->payloads.base + i * r->payload_room;
    e->iov[0] = (struct iovec){ .iov_base = e->head, .iov_len = sizeof(*e->head) };
    if (!r->opts.pool)
        e->iov[1] = (struct iovec){ .iov_base = e->payload, .iov_len = r->opts.max_payload };
}

static int ring_memory(struct ring *r)
{
    const struct mf__ring_opts *o = &r->opts;
    int rc;

    if (!o->step || o->first_queue >= o->queues || !o->depth)
        return -EINVAL;
    r->queue_count = (o->queues - o->first_queue + o->step - 1) / o->step;
    r->count = r->queue_count * o->depth;
    r->payload_room = (size_t)mf__round_up(o->max_payload, MF__PAGE) + BODY_SLACK + MF__PAGE;
    r->entries = calloc(r->count, sizeof(*r->entries));
    r->alive = calloc(r->queue_count, sizeof(*r->alive));
    if (!r->entries || !r->alive)
        return -ENOMEM;
    rc = mf__region_new(&r->headers, r->count * mf__round_up(sizeof(struct fuse_uring_req_header), MF__CACHE_LINE));
    if (rc == 0)
        rc = mf__region_new(&r->payloads, r->count * r->payload_room);
    if (rc == 0 && o->pool)
        rc = mf__region_new(&r->pools, (size_t)r->count * o->max_payload);
    if (rc < 0)
        return rc;
    mf__uring_keep_from_children(&r->headers);
    mf__uring_keep_from_children(&r->payloads);
    mf__uring_keep_from_children(&r->pools);
    for (uint32_t i = 0; i < r->count; i++)
        entry_init(r, i, o->first_queue + (r->queue_count - 1 - i / o->depth) * o->step);
    for (uint32_t i = 0; i < r->queue_count; i++)
        atomic_init(&r->alive[i], o->depth);
    return 0;
}

int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out)
{
    struct ring *r;
    int rc;

    if (posix_memalign((void **)&r, MF__CACHE_LINE, sizeof(*r)) != 0)
        return -ENOMEM;
    memset(r, 0, sizeof(*r));
    r->opts = *opts;
    r->sys = opts->sys;
    atomic_init(&r->missing, opts->others);
    init_locks(r);
    rc = ring_memory(r);
    if (rc == 0)
        rc = ring_open(r);
    if (rc < 0) {
        ring_free(r);
        return rc;
    }
    r->ch.ops = &mf__ring_transport;
    r->ch.index = opts->index;
    r->ch.fd = r->sys == &mf__uring_system ? r->fd : -1; /* what a forked child closes */
    atomic_init(&r->ch.refs, 1);
    *out = &r->ch;
    return 0;
}
