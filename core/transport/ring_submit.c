/* SPDX-License-Identifier: MIT */
/* ring_submit.c - what goes into a ring: entries, answers, wake-ups. Who waits for what comes out. */
#include <string.h>

#include "transport/ring_private.h"

/* ---- submission: all with the lock held ------------------------------------------------------------ */

/* The next submission entry, cleared. The first one each time: it is in the cache, and the kernel has read what was there. */
static MF__FLAT struct mf__sqe *next_sqe(struct ring *r, uint8_t opcode, uint64_t user_data)
{
    uint32_t tail = atomic_load_explicit(r->sq_tail, memory_order_relaxed) + r->queued;
    uint32_t i = r->queued++;
    struct mf__sqe *sqe = &r->sqes[i];

    mf__zero(sqe, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->user_data = user_data;
    r->sq_array[tail & r->sq_mask] = i;
    return sqe;
}

static MF__FLAT struct mf__sqe *next_command(struct ring *r, uint32_t op, uint64_t user_data)
{
    struct mf__sqe *sqe = next_sqe(r, MF__URING_OP_URING_CMD, user_data);

    sqe->flags = MF__URING_FIXED_FILE;
    sqe->cmd_op = op;
    return sqe;
}

/* Take back what the kernel did not take of the commands that began at `tail`: later nobody would know of it. */
MF__COLD static int settle_submission(struct ring *r, uint32_t tail, uint32_t n, int rc)
{
    uint32_t head = atomic_load_explicit(r->sq_head, memory_order_acquire);

    r->taken = head - tail;
    if (r->taken == n)
        return 0;
    atomic_store_explicit(r->sq_tail, head, memory_order_relaxed);
    return rc < 0 ? rc : -EAGAIN;
}

/* Submit what next_sqe() gave. 0, or an error: then only the first r->taken of them are out. */
static MF__FLAT int submit(struct ring *r)
{
    uint32_t tail = atomic_load_explicit(r->sq_tail, memory_order_relaxed);
    uint32_t n = r->queued;
    int rc;

    r->queued = 0;
    r->taken = n;
    atomic_store_explicit(r->sq_tail, tail + n, memory_order_release);
    HAND_OVER(r);
    do {
        rc = r->sys->enter(r->opts.kernel, r->fd, n, 0, 0);
    } while (rc == -EINTR && atomic_load_explicit(r->sq_head, memory_order_acquire) == tail);
    return rc == (int)n ? 0 : settle_submission(r, tail, n, rc);
}

static void next_register(struct ring *r, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(r, FUSE_IO_URING_CMD_REGISTER, index);

    sqe->addr = (uintptr_t)e->iov;
    sqe->len = 2;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static MF__FLAT void next_commit(struct ring *r, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue, .commit_id = e->commit_id };
    struct mf__sqe *sqe = next_command(r, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, index);

    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static int submit_pool(struct ring *r, uint32_t n)
{
    const struct entry *e = &r->entries[n * r->opts.depth];
    size_t size = (size_t)r->opts.depth * r->opts.max_payload;
    struct mf__fuse_bufpool pool = { .address = (uintptr_t)r->pools.base + n * size,
                                     .length = (uint32_t)size,
                                     .queue = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(r, MF__FUSE_ADD_BUFPOOL, POOL_DATA);

    memcpy(sqe->cmd, &pool, sizeof(pool));
    return submit(r);
}

/* Only the last queue is not registered. */
static bool last_is_left(const struct ring *r)
{
    return r->armed + r->opts.depth == r->count;
}

/* The first one alone, since the kernel may refuse them all; then as many of a queue as go into one submission. */
static int register_some(struct ring *r)
{
    uint32_t left = r->opts.depth - r->armed % r->opts.depth;
    uint32_t n = left < r->submissions ? left : r->submissions;
    int rc;

    if (r->armed == 0 && !last_is_left(r))
        n = 1;
    for (uint32_t i = 0; i < n; i++)
        next_register(r, r->armed + i);
    rc = submit(r);
    r->armed += r->taken;
    return r->taken && passing(rc) ? 0 : rc; /* the rest may go better */
}

static void mark_registered(struct ring *r)
{
    int none = 0;

    if (atomic_compare_exchange_strong(&r->state, &none, 1) && r->opts.last) {
        struct ring *last = ring_of(r->opts.last);

        if (atomic_fetch_sub(&last->missing, 1) == 1)
            r->opts.last->ops->wake(r->opts.last);
    }
}

int mf__ring_register(struct ring *r)
{
    int rc = 0;

    if (!r->attached)
        rc = r->sys->attach(r->opts.kernel, r->fd, r->opts.device);
    for (uint32_t i = 0; rc == 0 && r->opts.pool && !r->attached && i < r->queue_count; i++)
        rc = submit_pool(r, i);
    r->attached = r->attached || rc == 0;
    while (rc == 0 && r->armed < r->count) {
        if (last_is_left(r) && atomic_load(&r->missing))
            return 0;
        rc = register_some(r);
        if (anything_completed(r))
            break;
    }
    if (rc < 0 && r->armed + r->opts.depth > r->count) {
        /* Each queue has an entry: serve with fewer. Those that were not armed are gone. */
        atomic_fetch_add(&r->gone, r->count - r->armed);
        r->armed = r->count;
        rc = 0;
    }
    if (rc == 0 && r->armed == r->count)
        mark_registered(r);
    return rc;
}

int mf__ring_register_again(struct ring *r, uint32_t index)
{
    int rc = -ENODEV;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
        next_register(r, index);
        rc = submit(r);
    }
    mf__ring_unlock(r);
    return rc;
}

/* ---- commits and wake-ups -------------------------------------------------------------------------- */

void mf__ring_let_wait(struct ring *r, uint32_t index)
{
    uint32_t head = atomic_load_explicit(&r->waiting, memory_order_relaxed);

    do {
        r->entries[index].next_commit = head;
    } while (!atomic_compare_exchange_weak_explicit(&r->waiting, &head, index + 1, memory_order_acq_rel,
                                                    memory_order_relaxed));
}

static MF__FLAT int commit_one(struct ring *r, uint32_t index)
{
    int rc = -ENODEV;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
        next_commit(r, index);
        rc = submit(r);
        if (rc < 0)
            mf__ring_let_wait(r, index);
    }
    mf__ring_unlock(r);
    return rc;
}

int mf__ring_commit(struct ring *r, uint32_t index)
{
    return commit_one(r, index);
}

/* As many of a list as go into one submission; *next receives the rest. What fails waits again. */
static int commit_some(struct ring *r, uint32_t *next)
{
    uint32_t batch[SUBMISSIONS];
    uint32_t n = 0;
    int rc = -ENODEV;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
        for (; *next && n < SUBMISSIONS; *next = r->entries[batch[n++]].next_commit) {
            batch[n] = *next - 1;
            next_commit(r, batch[n]);
        }
        if (n > 1)
            count_one(&r->counts.batches);
        rc = submit(r);
        for (uint32_t i = r->taken; i < n; i++)
            mf__ring_let_wait(r, batch[i]);
    }
    mf__ring_unlock(r);
    return rc;
}

MF__COLD static int commit_list(struct ring *r, uint32_t next)
{
    int rc = 0;

    while (next) {
        uint32_t before = next;
        int one = commit_some(r, &next);

        if (one == -ENODEV && next == before)
            return one;
        if (one < 0)
            rc = one;
    }
    return rc;
}

int mf__ring_commit_waiting(struct ring *r)
{
    uint32_t first = atomic_exchange_explicit(&r->waiting, 0, memory_order_acq_rel);

    atomic_store_explicit(&r->held, 0, memory_order_relaxed);
    if (first && !r->entries[first - 1].next_commit)
        return commit_one(r, first - 1);
    return commit_list(r, first);
}

void mf__ring_call(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (atomic_load(&r->followers) == 0 || atomic_load(&r->led))
        return;
    pthread_mutex_lock(&r->follow);
    if (r->calls < atomic_load(&r->followers))
        r->calls++;
    count_one(&r->counts.calls);
    pthread_mutex_unlock(&r->follow);
    pthread_cond_signal(&r->called);
}

/*
 * One follower looks from time to time while nobody calls: is whoever took the last request still busy with it? Where
 * many looks were in vain that is left to a thread that looks anyway, see mf__ring_look().
 */
struct watch {
    bool mine;
    uint32_t head;    /* at the last look */
    uint64_t wait_ns; /* until the next */
};

/* Has nobody taken a request since the last look, nor waits for one, although there is something to do? */
static bool left_alone(struct ring *r, uint32_t head, uint32_t head_then)
{
    if (head != head_then || atomic_load(&r->led) || !(anything_completed(r) || atomic_load(&r->waiting)))
        return false;
    count_one(&r->counts.blocked);
    atomic_store(&r->vain_looks, 0);
    return true;
}

static bool followers_look(struct ring *r)
{
    return atomic_load(&r->ch.calling) != MF__CALL_ALWAYS && atomic_load(&r->vain_looks) < MF__PATIENCE;
}

/* With the lock held. Whether to go. */
static bool look_after(struct ring *r, struct watch *w)
{
    uint32_t head;

    if (mf__cond_wait(&r->called, &r->follow, w->wait_ns))
        return false;
    head = atomic_load_explicit(r->cq_head, memory_order_relaxed);
    if (left_alone(r, head, w->head))
        return true;
    atomic_fetch_add(&r->vain_looks, 1);
    w->wait_ns = head == w->head && atomic_load(&r->led) ? IDLE_WATCH_NS : MF__WATCH_NS;
    w->head = head;
    return false;
}

void mf__ring_follow(struct ring *r)
{
    struct watch w = { .head = atomic_load_explicit(r->cq_head, memory_order_relaxed), .wait_ns = MF__WATCH_NS };
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&r->follow);
    atomic_fetch_add(&r->followers, 1);
    while (r->calls == 0) {
        bool watch = followers_look(r);

        if (!r->watched)
            w.mine = r->watched = true;
        /* Who gave up leading before he could see this one called nobody. */
        if (!watch && !atomic_load(&r->led))
            break;
        if (!watch || !w.mine)
            pthread_cond_wait(&r->called, &r->follow);
        else if (look_after(r, &w))
            break;
    }
    atomic_fetch_sub(&r->followers, 1);
    if (r->calls)
        r->calls--;
    if (w.mine) {
        r->watched = false;
        pthread_cond_signal(&r->called); /* the next one watches */
    }
    pthread_mutex_unlock(&r->follow);
    pthread_setcancelstate(cancel, NULL);
}

/* How it is to be done has changed. */
static void tell_followers(struct ring *r)
{
    if (atomic_load(&r->followers) == 0)
        return;
    pthread_mutex_lock(&r->follow); /* else one that has just looked would sleep all the same */
    pthread_mutex_unlock(&r->follow);
    pthread_cond_broadcast(&r->called);
}

void mf__ring_look(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t head = atomic_load_explicit(r->cq_head, memory_order_relaxed);

    if (atomic_load(&r->followers) && !followers_look(r) && left_alone(r, head, r->head_then)) {
        mf__ring_call(ch);
        tell_followers(r); /* who is not called looks again */
    }
    r->head_then = head;
}

/* One that wakes whoever waits for completions. 0, -ENODEV: shut; or no memory. Lock held. */
static int submit_wake(struct ring *r)
{
    if (atomic_load_explicit(&r->shut, memory_order_relaxed))
        return 0;
    next_sqe(r, MF__URING_OP_NOP, WAKE_DATA);
    return submit(r);
}

/* After the lock was given up. */
MF__COLD static void send_wanted(struct ring *r)
{
    while (atomic_load(&r->wake_ups) && pthread_mutex_trylock(&r->submit) == 0) {
        bool wanted = atomic_load(&r->wake_ups) > 0; /* still: only who has the lock takes from it */
        bool failed = wanted && passing(submit_wake(r));

        if (wanted && !failed)
            atomic_fetch_sub(&r->wake_ups, 1);
        pthread_mutex_unlock(&r->submit);
        if (failed)
            return; /* the next one tries */
    }
}

void mf__ring_unlock(struct ring *r)
{
    pthread_mutex_unlock(&r->submit);
    if (atomic_load(&r->wake_ups))
        send_wanted(r);
}

/* Never waits for the lock: whoever has it sends the wake-up, and may be a reader that lets others run first. */
static void send_wake_up(struct ring *r)
{
    atomic_fetch_add(&r->wake_ups, 1);
    for (uint32_t tries = TRIES; tries && pthread_mutex_trylock(&r->submit) == 0; tries--) {
        mf__ring_unlock(r);
        if (!atomic_load(&r->wake_ups))
            break;
        nap(); /* there was no memory */
    }
}

void mf__ring_nudge(struct ring *r)
{
    /* Until that wake-up is seen all answers that wait are its concern. */
    if (atomic_exchange(&r->nudged, true))
        return;
    count_one(&r->counts.nudges);
    send_wake_up(r);
    mf__ring_call(&r->ch);
}

void mf__ring_wake(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    send_wake_up(r);
    mf__ring_call(&r->ch);
    tell_followers(r);
}

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
