/* SPDX-License-Identifier: MIT */
/* ring_submit.c - what goes into a ring: entries, answers, wake-ups. */
#include <string.h>

#include "transport/ring_private.h"

/* ---- submission: all with the lock held ------------------------------------------------------------ */

/* The next submission entry, cleared. The first one each time: it is in the cache, and the kernel has read what was there. */
static MF__FLAT struct mf__sqe *next_sqe(struct uring *u, uint8_t opcode, uint64_t user_data)
{
    uint32_t tail = atomic_load_explicit(u->sq_tail, memory_order_relaxed) + u->queued;
    uint32_t i = u->queued++;
    struct mf__sqe *sqe = &u->sqes[i];

    mf__zero(sqe, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->user_data = user_data;
    u->sq_array[tail & u->sq_mask] = i;
    return sqe;
}

static MF__FLAT struct mf__sqe *next_command(struct uring *u, uint32_t op, uint64_t user_data)
{
    struct mf__sqe *sqe = next_sqe(u, MF__URING_OP_URING_CMD, user_data);

    sqe->flags = MF__URING_FIXED_FILE;
    sqe->cmd_op = op;
    return sqe;
}

/* Take back what the kernel did not take of the commands that began at `tail`: later nobody would know of it. */
MF__COLD static int settle_submission(struct uring *u, uint32_t tail, uint32_t n, int rc)
{
    uint32_t head = atomic_load_explicit(u->sq_head, memory_order_acquire);

    u->taken = head - tail;
    if (u->taken == n)
        return 0;
    atomic_store_explicit(u->sq_tail, head, memory_order_relaxed);
    return rc < 0 ? rc : -EAGAIN;
}

/* Submit what next_sqe() gave. 0, or an error: then only the first u->taken of them are out. */
static MF__FLAT int submit(struct uring *u)
{
    uint32_t tail = atomic_load_explicit(u->sq_tail, memory_order_relaxed);
    uint32_t n = u->queued;
    int rc;

    u->queued = 0;
    u->taken = n;
    atomic_store_explicit(u->sq_tail, tail + n, memory_order_release);
    HAND_OVER(u);
    do {
        rc = u->sys->enter(u->kernel, u->fd, n, 0, 0);
    } while (rc == -EINTR && atomic_load_explicit(u->sq_head, memory_order_acquire) == tail);
    return rc == (int)n ? 0 : settle_submission(u, tail, n, rc);
}

static void next_register(struct ring *r, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(&r->u, FUSE_IO_URING_CMD_REGISTER, index);

    sqe->addr = (uintptr_t)e->iov;
    sqe->len = 2;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static MF__FLAT void next_commit(struct ring *r, struct uring *u, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue, .commit_id = e->commit_id };
    struct mf__sqe *sqe = next_command(u, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, index);

    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static int submit_pool(struct ring *r, uint32_t n)
{
    const struct entry *e = &r->entries[n * r->opts.depth];
    size_t size = (size_t)r->opts.depth * r->opts.max_payload;
    struct mf__fuse_bufpool pool = { .address = (uintptr_t)r->pools.base + n * size,
                                     .length = (uint32_t)size,
                                     .queue = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(&r->u, MF__FUSE_ADD_BUFPOOL, POOL_DATA);

    memcpy(sqe->cmd, &pool, sizeof(pool));
    return submit(&r->u);
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
    uint32_t n = left < r->u.submissions ? left : r->u.submissions;
    int rc;

    if (r->armed == 0 && !last_is_left(r))
        n = 1;
    for (uint32_t i = 0; i < n; i++)
        next_register(r, r->armed + i);
    rc = submit(&r->u);
    r->armed += r->u.taken;
    return r->u.taken && passing(rc) ? 0 : rc; /* the rest may go better */
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
        rc = r->u.sys->attach(r->u.kernel, r->u.fd, r->opts.device);
    for (uint32_t i = 0; rc == 0 && r->opts.pool && !r->attached && i < r->queue_count; i++)
        rc = submit_pool(r, i);
    r->attached = r->attached || rc == 0;
    while (rc == 0 && r->armed < r->count) {
        if (last_is_left(r) && atomic_load(&r->missing))
            return 0;
        rc = register_some(r);
        if (anything_completed(&r->u))
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

    pthread_mutex_lock(&r->u.submit);
    if (!atomic_load_explicit(&r->u.shut, memory_order_relaxed)) {
        next_register(r, index);
        rc = submit(&r->u);
    }
    mf__uring_unlock(&r->u);
    return rc;
}

/* ---- the lock -------------------------------------------------------------------------------------- */

/* One that wakes whoever waits for completions. 0, -ENODEV: shut; or no memory. Lock held. */
static int submit_wake(struct uring *u)
{
    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return 0;
    next_sqe(u, MF__URING_OP_NOP, WAKE_DATA);
    return submit(u);
}

/* With no lock held. Who has it now sends them when he gives it up. false: there was no memory, and the next one tries. */
MF__COLD static bool send_wanted(struct uring *u)
{
    bool sent = true;

    while (sent && atomic_load(&u->wake_ups) && pthread_mutex_trylock(&u->submit) == 0) {
        atomic_store(&u->waking, true);
        if (atomic_load(&u->wake_ups)) { /* still: only who has the lock takes from it */
            sent = !passing(submit_wake(u));
            atomic_fetch_sub(&u->wake_ups, sent);
        }
        atomic_store(&u->waking, false);
        pthread_mutex_unlock(&u->submit);
    }
    return sent;
}

static inline void release(struct uring *u)
{
    pthread_mutex_unlock(&u->submit);
    if (atomic_load(&u->wake_ups))
        (void)send_wanted(u);
}

/* Never waits for the lock: whoever has it sends the wake-up, and may be a reader that lets others run first. */
void mf__uring_wake(struct uring *u)
{
    do {
        atomic_fetch_add(&u->wake_ups, 1);
        for (uint32_t tries = TRIES; !send_wanted(u) && tries; tries--)
            nap();
    } while (atomic_exchange(&u->left, false)); /* while the lock was here: who is woken sends these */
}

void mf__uring_unlock(struct uring *u)
{
    release(u);
    if (atomic_load(&u->left))
        mf__uring_wake(u);
}

/* When it is first needed. With its lock held. false: there is none. */
static bool open_waker(struct ring *r)
{
    struct uring *u = &r->waker;

    if (!u->sqes && !atomic_load(&u->shut) && mf__uring_open(u, 1, 2) < 0)
        atomic_store(&u->shut, true); /* do without */
    return !atomic_load(&u->shut);
}

/* With the waker's lock held: while it is open the other ring is, too. */
static bool send_message(struct uring *u, int fd)
{
    struct mf__sqe *sqe = next_sqe(u, MF__URING_OP_MSG_RING, 0);

    sqe->flags = MF__URING_SKIP_SUCCESS;
    sqe->fd = fd;
    sqe->offset = WAKE_DATA;
    if (submit(u) < 0)
        return false;
    if (!anything_completed(u))
        return true;
    atomic_store(u->cq_head, atomic_load(u->cq_tail)); /* it failed */
    return false;
}

bool mf__ring_send_message(struct ring *r)
{
    bool sent;

    if (pthread_mutex_trylock(&r->waker.submit) != 0)
        return false;
    sent = open_waker(r) && send_message(&r->waker, r->u.fd);
    pthread_mutex_unlock(&r->waker.submit);
    return sent;
}

/*
 * For answers that are in the list. Who has the lock may be a reader that lets others run first, and gives it back and
 * takes it again faster than one who waits for it can be woken: some waited for a fifth of a second. So nobody waits, but
 * leaves his answers to him. Only who sends a wake-up is waited for: it may have let this thread run in the middle of it,
 * and it gives no answers.
 */
static bool lock_or_leave(struct uring *u)
{
    if (pthread_mutex_trylock(&u->submit) == 0)
        return true;
    if (atomic_load(&u->waking)) {
        pthread_mutex_lock(&u->submit);
        return true;
    }
    atomic_store(&u->left, true);
    return pthread_mutex_trylock(&u->submit) == 0; /* else he has not given it back since, and sees it then */
}

/* ---- commits --------------------------------------------------------------------------------------- */

void mf__ring_let_wait(struct ring *r, struct uring *u, uint32_t index)
{
    uint32_t head = atomic_load_explicit(&u->waiting, memory_order_relaxed);

    do {
        r->entries[index].next_commit = head;
    } while (!atomic_compare_exchange_weak_explicit(&u->waiting, &head, index + 1, memory_order_acq_rel,
                                                    memory_order_relaxed));
}

/* With the lock held, like what follows. */
static MF__FLAT int commit_one(struct ring *r, struct uring *u, uint32_t index)
{
    int rc;

    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return -ENODEV;
    next_commit(r, u, index);
    rc = submit(u);
    if (rc < 0)
        mf__ring_let_wait(r, u, index);
    return rc;
}

/* As many of a list as go into one submission; *next receives the rest. What fails waits again. */
static int commit_some(struct ring *r, struct uring *u, uint32_t *next)
{
    uint32_t batch[SUBMISSIONS];
    uint32_t n = 0;
    int rc;

    for (; *next && n < SUBMISSIONS; *next = r->entries[batch[n++]].next_commit) {
        batch[n] = *next - 1;
        next_commit(r, u, batch[n]);
    }
    if (n > 1)
        count_one(&r->counts.batches);
    rc = submit(u);
    for (uint32_t i = u->taken; i < n; i++)
        mf__ring_let_wait(r, u, batch[i]);
    return rc;
}

MF__COLD static int commit_list(struct ring *r, struct uring *u, uint32_t next)
{
    int rc = 0;

    while (next && !atomic_load_explicit(&u->shut, memory_order_relaxed)) {
        int one = commit_some(r, u, &next);

        if (one < 0)
            rc = one;
    }
    return next ? -ENODEV : rc;
}

static MF__FLAT int commit_all(struct ring *r, struct uring *u)
{
    uint32_t first;

    if (atomic_load(&u->left))
        atomic_store(&u->left, false); /* before the list is taken: who adds to it later looks again */
    first = atomic_exchange_explicit(&u->waiting, 0, memory_order_acq_rel);
    atomic_store_explicit(&u->held, 0, memory_order_relaxed);
    if (first && !r->entries[first - 1].next_commit)
        return commit_one(r, u, first - 1);
    return commit_list(r, u, first);
}

int mf__ring_commit_waiting(struct ring *r, struct uring *u)
{
    int rc = 0, one;

    do {
        if (!lock_or_leave(u))
            return rc ? rc : MF__SENT_LATER;
        one = commit_all(r, u);
        release(u);
        rc = one < 0 ? one : rc;
    } while (atomic_load(&u->left));
    return rc;
}

int mf__ring_commit(struct ring *r, struct uring *u, uint32_t index)
{
    int rc;

    if (pthread_mutex_trylock(&u->submit) != 0) {
        mf__ring_let_wait(r, u, index);
        return mf__ring_commit_waiting(r, u);
    }
    rc = commit_one(r, u, index);
    release(u);
    if (atomic_load(&u->left))
        (void)mf__ring_commit_waiting(r, u);
    return rc;
}
