/* SPDX-License-Identifier: MIT */
/* ring_make.c - whether rings can be had, making and unmaking them; how far one has come. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

void mf__uring_init(struct uring *u, const struct mf__uring_sys *sys, void *kernel)
{
    u->sys = sys;
    u->kernel = kernel;
    pthread_mutex_init(&u->submit, NULL);
}

/* The kernel releases a ring only when all maps of it are gone, and the descriptor. */
static void uring_unmap(struct uring *u)
{
    if (u->sqes)
        u->sys->unmap(u->kernel, u->sqes, u->sqes_size);
    if (u->maps)
        u->sys->unmap(u->kernel, u->maps, u->maps_size);
}

void mf__uring_release(struct uring *u)
{
    uring_unmap(u);
    u->sys->close(u->kernel, u->fd);
}

void mf__uring_forget(struct uring *u)
{
    if (!atomic_exchange(&u->shut, true))
        uring_unmap(u);
    atomic_store(&u->waiting, 0);
    pthread_mutex_init(&u->submit, NULL);
}

/* If it was ever open. */
static void release_once(struct uring *u)
{
    pthread_mutex_lock(&u->submit);
    if (!atomic_exchange(&u->shut, true) && u->sqes)
        mf__uring_release(u);
    mf__uring_unlock(u);
}

void mf__uring_shut(struct ring *r, struct uring *u)
{
    if (!atomic_load(&u->shut))
        (void)mf__ring_commit_waiting(r, u); /* no reader is left to do it; the entries end with the ring */
    release_once(u);
}

void mf__ring_shut(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    release_once(&r->waker); /* first: another ring may come to have the descriptor of the one that it wakes */
    mf__uring_shut(r, &r->u);
    mf__owns_shut(r);
}

static void init_locks(struct ring *r)
{
    pthread_mutex_init(&r->follow, NULL);
    mf__cond_init(&r->called);
}

void mf__ring_forget(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    mf__uring_forget(&r->u);
    mf__uring_forget(&r->waker);
    mf__owns_forget(r);
    init_locks(r);
}

void mf__ring_close_inherited(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (ch->fd < 0)
        return;
    close(ch->fd);
    if (r->waker.sqes && !atomic_load(&r->waker.shut))
        close(r->waker.fd);
    mf__owns_close_inherited(r);
}

static void ring_free(struct ring *r)
{
    mf__owns_free(r);
    mf__region_free(&r->pools);
    mf__region_free(&r->payloads);
    mf__region_free(&r->headers);
    free(r->alive);
    free(r->entries);
    pthread_cond_destroy(&r->called);
    pthread_mutex_destroy(&r->follow);
    pthread_mutex_destroy(&r->waker.submit);
    pthread_mutex_destroy(&r->u.submit);
    free(r);
}

void mf__ring_close(struct mf__channel *ch)
{
    mf__ring_shut(ch);
    ring_free(ring_of(ch));
}

static int uring_map(struct uring *u, const struct mf__uring_params *p)
{
    size_t sq_size = p->sq.c + p->sq_entries * sizeof(uint32_t);
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(struct mf__cqe);
    void *at;
    int rc;

    u->maps_size = sq_size > cq_size ? sq_size : cq_size;
    rc = u->sys->map(u->kernel, u->fd, u->maps_size, 0, &at);
    if (rc < 0)
        return rc;
    u->maps = at;
    u->sqes_size = p->sq_entries * sizeof(struct mf__sqe);
    rc = u->sys->map(u->kernel, u->fd, u->sqes_size, MF__URING_OFF_SQES, &at);
    if (rc < 0)
        return rc;
    u->sqes = at;
    u->sq_head = (void *)(u->maps + p->sq.head);
    u->sq_tail = (void *)(u->maps + p->sq.tail);
    u->sq_mask = *(uint32_t *)(void *)(u->maps + p->sq.ring_mask);
    u->sq_array = (void *)(u->maps + p->sq.c);
    u->cq_head = (void *)(u->maps + p->cq.head);
    u->cq_tail = (void *)(u->maps + p->cq.tail);
    u->cq_mask = *(uint32_t *)(void *)(u->maps + p->cq.ring_mask);
    u->cqes = (void *)(u->maps + p->cq.b);
    return 0;
}

int mf__uring_open(struct uring *u, uint32_t submissions, uint32_t completions)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 | MF__URING_SETUP_CQSIZE, .cq_entries = completions };
    int rc;

    u->submissions = submissions;
    u->fd = u->sys->setup(u->kernel, submissions, &p);
    if (u->fd < 0)
        return u->fd;
    rc = uring_map(u, &p);
    if (rc < 0)
        mf__uring_release(u);
    return rc;
}

static int ring_open(struct ring *r)
{
    bool at_once = !r->opts.last && r->opts.depth > SUBMISSIONS;

    return mf__uring_open(&r->u, at_once ? r->opts.depth : SUBMISSIONS, 2 * (r->count + SUBMISSIONS));
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
    mf__uring_init(&r->u, opts->sys, opts->kernel);
    mf__uring_init(&r->waker, opts->sys, opts->kernel);
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
    r->ch.fd = r->u.sys == &mf__uring_system ? r->u.fd : -1; /* what a forked child closes */
    atomic_init(&r->ch.refs, 1);
    *out = &r->ch;
    return 0;
}

/* ---- how far it has come ------------------------------------------------------------------------ */

void mf__ring_counts(struct mf__channel *ch, struct mf__ring_counts *out)
{
    struct ring *r = ring_of(ch);

    *out = (struct mf__ring_counts){
        .behind = atomic_load_explicit(&r->counts.behind, memory_order_relaxed),
        .waits = atomic_load_explicit(&r->counts.waits, memory_order_relaxed),
        .batches = atomic_load_explicit(&r->counts.batches, memory_order_relaxed),
        .calls = atomic_load_explicit(&r->counts.calls, memory_order_relaxed),
        .blocked = atomic_load_explicit(&r->counts.blocked, memory_order_relaxed),
        .nudges = atomic_load_explicit(&r->counts.nudges, memory_order_relaxed),
    };
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        out->own += atomic_load_explicit(&own->requests, memory_order_relaxed);
    for (uint32_t i = 0; i < r->count; i++)
        out->requests += atomic_load_explicit(&r->entries[i].requests, memory_order_relaxed);
}

int mf__ring_state(struct mf__channel *ch)
{
    return atomic_load(&ring_of(ch)->state);
}

void mf__ring_refuse(struct mf__channel *ch, int error)
{
    struct ring *r = ring_of(ch);
    int state = atomic_load(&r->state);

    while (state >= 0 && !atomic_compare_exchange_weak(&r->state, &state, error))
        continue;
    mf__ring_wake(ch);
}
