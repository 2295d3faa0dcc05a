/* SPDX-License-Identifier: MIT */
/*
 * ring.c - requests over io_uring (7.42).
 *
 * One ring serves one queue, or several, and any number of threads serve one ring. The ring is a plain one (no
 * SINGLE_ISSUER, no DEFER_TASKRUN): the kernel copies a request into an entry's buffers in the task that
 * submitted the entry's last command, also while that task is blocked in a handler, and whichever thread waits
 * on the ring then takes the completion. So a handler that waits holds up nobody: another thread goes on, and
 * each answer that it gives moves an entry over to it. (What a blocked system call sees of it is a restart, or
 * EINTR where signal(7) says that it is never restarted, as for epoll_wait(2).)
 *
 * Several threads submit, so the submission side has a lock. Under it commands are submitted at once or taken
 * back: between two holders the submission queue is empty. Completions are claimed one by one with a
 * compare-and-swap on the ring's head: a thread never holds one that it is not about to handle.
 *
 * Answers from threads that are none of the session's are committed by a reader: a foreign thread may exit, and
 * an entry that it had armed would fail its next request. So is an answer whose commit the system had no memory
 * for: it waits in the same list.
 *
 * The mount is ready for rings when the last queue gets its first entry, and at once all those come who have waited
 * for it. What finds that queue's only entry taken waits for a commit there: an entry that is registered later does not
 * look at it. Were the first one's handler to wait, too, nothing would go on. So one queue is the last, that of the
 * first ring: it is registered when all other entries are, and all of it in one call.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <pthread.h>

#include "transport/ring.h"

#define WAKE_DATA UINT64_MAX       /* user_data of the NOP that wakes */
#define POOL_DATA (UINT64_MAX - 1) /* of the command that tells a pool */
#define BODY_SLACK 65536u          /* for an answer that is built beside the request's payload */
#define SUBMISSIONS 8u             /* commits are submitted as they come, so the queue stays short */
#define NAP_NS 1000000             /* before what failed for want of memory is tried again */
#define TRIES 100u

#ifdef __SANITIZE_THREAD__
/* What one thread submits and another claims went through the kernel, whose part in it is not seen. */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define HAND_OVER(r) __tsan_release(r)
#define TAKE_OVER(r) __tsan_acquire(r)
#else
#define HAND_OVER(r) ((void)(r))
#define TAKE_OVER(r) ((void)(r))
#endif

struct entry {
    struct fuse_uring_req_header *head;
    uint8_t *payload;    /* its own buffer */
    uint8_t *at;         /* where the payload of the request in hand lies, and its answer's is expected */
    struct iovec iov[2]; /* the kernel remembers what it points to, not the array itself */
    uint32_t queue;
    uint32_t next_commit; /* list of answers that wait to be committed: index + 1 */
    uint64_t commit_id;   /* of the request in hand or the last one; 0: never had any */
};

struct ring {
    struct mf__channel ch;
    struct mf__ring_opts opts;
    const struct mf__uring_sys *sys;
    int fd;
    uint8_t *maps;
    size_t maps_size;
    struct mf__sqe *sqes;
    size_t sqes_size;
    _Atomic uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    uint32_t *sq_array;
    uint32_t sq_mask, cq_mask;
    struct mf__cqe *cqes;
    struct entry *entries;   /* first entries of all queues, second ones of all queues, ... */
    _Atomic uint32_t *alive; /* per queue: entries that were not refused */
    uint32_t queue_count;
    uint32_t count;
    struct mf__region headers, payloads, pools;
    size_t payload_room;
    pthread_mutex_t submit;
    uint32_t queued;          /* commands that are about to be submitted; under the lock, like these: */
    uint32_t taken;           /* of the last submission */
    uint32_t failures;        /* to register, for want of memory */
    bool attached;            /* the device is our fixed file */
    uint32_t armed;           /* entries whose first command is out */
    uint32_t submissions;     /* at once */
    _Atomic uint32_t missing; /* rings that must be registered before our last queue */
    _Atomic uint32_t held;    /* answers among those that wait which a reader kept back for a batch */
    _Atomic uint32_t waiting; /* first of the answers that wait for a reader's commit: index + 1 */
    _Atomic int state;        /* 0 not all registered, 1 registered, negative: refused */
    _Atomic uint32_t gone;    /* entries that the kernel gave back for good */
    _Atomic bool shut;
};

static struct ring *ring_of(struct mf__channel *ch)
{
    return MF__CONTAINER_OF(ch, struct ring, ch);
}

static bool passing(int error)
{
    return error == -EAGAIN || error == -EBUSY || error == -ENOMEM;
}

static void nap(void)
{
    const struct timespec time = { .tv_nsec = NAP_NS };

    nanosleep(&time, NULL);
}

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

/* ---- submission: all with the lock held ------------------------------------------------------------ */

/* The next submission entry, cleared. */
static struct mf__sqe *next_sqe(struct ring *r, uint8_t opcode, uint64_t user_data)
{
    uint32_t i = (atomic_load_explicit(r->sq_tail, memory_order_relaxed) + r->queued++) & r->sq_mask;
    struct mf__sqe *sqe = &r->sqes[i];

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->user_data = user_data;
    r->sq_array[i] = i;
    return sqe;
}

static struct mf__sqe *next_command(struct ring *r, uint32_t op, uint64_t user_data)
{
    struct mf__sqe *sqe = next_sqe(r, MF__URING_OP_URING_CMD, user_data);

    sqe->flags = MF__URING_FIXED_FILE;
    sqe->cmd_op = op;
    return sqe;
}

/* Take back what the kernel did not take of the commands that began at `tail`: later nobody would know of it. */
static int settle_submission(struct ring *r, uint32_t tail, uint32_t n, int rc)
{
    uint32_t head = atomic_load_explicit(r->sq_head, memory_order_acquire);

    r->taken = head - tail;
    if (r->taken == n)
        return 0;
    atomic_store_explicit(r->sq_tail, head, memory_order_relaxed);
    return rc < 0 ? rc : -EAGAIN;
}

/* Submit what next_sqe() gave. 0, or an error: then only the first r->taken of them are out. */
static int submit(struct ring *r)
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

static void next_commit(struct ring *r, uint32_t index)
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

static bool anything_completed(struct ring *r)
{
    return atomic_load_explicit(r->cq_head, memory_order_relaxed) !=
           atomic_load_explicit(r->cq_tail, memory_order_acquire);
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

/*
 * Register what is left. It stops where something completed: that may be the refusal, and the receiver, who looks at
 * it, comes back here; and where other rings come first.
 */
static int register_entries(struct ring *r)
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

/* ---- commits and wake-ups -------------------------------------------------------------------------- */

static void let_wait(struct ring *r, uint32_t index)
{
    uint32_t head = atomic_load_explicit(&r->waiting, memory_order_relaxed);

    do {
        r->entries[index].next_commit = head;
    } while (!atomic_compare_exchange_weak_explicit(&r->waiting, &head, index + 1, memory_order_acq_rel,
                                                    memory_order_relaxed));
}

/* 0; an error: the answer waits for the next receive, unless the ring is shut. */
static int commit(struct ring *r, uint32_t index)
{
    int rc = -ENODEV;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
        next_commit(r, index);
        rc = submit(r);
        if (rc < 0)
            let_wait(r, index);
    }
    pthread_mutex_unlock(&r->submit);
    return rc;
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
        rc = submit(r);
        for (uint32_t i = r->taken; i < n; i++)
            let_wait(r, batch[i]);
    }
    pthread_mutex_unlock(&r->submit);
    return rc;
}

/* Commit the answers that wait, here, in a task that lives as long as the ring. */
static int commit_waiting(struct ring *r)
{
    uint32_t next = atomic_exchange_explicit(&r->waiting, 0, memory_order_acq_rel);
    int rc = 0;

    atomic_store_explicit(&r->held, 0, memory_order_relaxed);
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

static void ring_wake(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t tries = TRIES;
    int rc;

    do {
        rc = 0;
        pthread_mutex_lock(&r->submit);
        if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
            next_sqe(r, MF__URING_OP_NOP, WAKE_DATA);
            rc = submit(r);
        }
        pthread_mutex_unlock(&r->submit);
        if (passing(rc))
            nap();
    } while (passing(rc) && --tries);
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
    ring_wake(ch);
}

/* ---- completions ----------------------------------------------------------------------------------- */

static bool claim_cqe(struct ring *r, struct mf__cqe *out)
{
    uint32_t head = atomic_load_explicit(r->cq_head, memory_order_acquire);

    for (;;) {
        struct mf__cqe *cqe = &r->cqes[head & r->cq_mask];

        if (head == atomic_load_explicit(r->cq_tail, memory_order_acquire))
            return false;
        /* Whoever comes second reads what the kernel may be writing anew: then the exchange fails. */
        out->user_data = __atomic_load_n(&cqe->user_data, __ATOMIC_RELAXED);
        out->res = __atomic_load_n(&cqe->res, __ATOMIC_RELAXED);
        if (atomic_compare_exchange_weak_explicit(r->cq_head, &head, head + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            break;
    }
    TAKE_OVER(r);
    return true;
}

/*
 * Where the payload of a request lies: in the entry's own buffer, or (7.46) in its queue's pool, at the offset that
 * came with it. NULL: it lies nowhere.
 */
static uint8_t *payload_of(const struct ring *r, const struct entry *e)
{
    size_t size = (size_t)r->opts.depth * r->opts.max_payload;
    size_t offset = e->head->ring_ent_in_out.padding;
    uint32_t n = (uint32_t)(e - r->entries) / r->opts.depth;

    if (e->head->ring_ent_in_out.payload_sz > r->opts.max_payload)
        return NULL;
    if (!r->opts.pool)
        return e->payload;
    return offset > size - r->opts.max_payload ? NULL : r->pools.base + n * size + offset;
}

static void deliver(struct ring *r, uint32_t index, struct mf__io *io)
{
    struct entry *e = &r->entries[index];
    struct mf__msg *msg = &io->msg;
    uint32_t used = e->head->ring_ent_in_out.payload_sz;
    size_t beside = 0;

    e->commit_id = e->head->ring_ent_in_out.commit_id;
    e->at = payload_of(r, e);
    io->entry = index;
    io->queue = e->queue;
    io->commit_id = e->commit_id;
    if (!e->at) { /* the header still says whom to answer */
        e->at = e->payload;
        used = 0;
        (void)mf__msg_from_ring(msg, e->head, e->at, 0);
        msg->hdr.opcode = 0;
    } else if (mf__msg_from_ring(msg, e->head, e->at, used) < 0) {
        msg->hdr.opcode = 0;
    } else if (msg->args == e->head->op_in) {
        /* The structure is no longer than the header's length allows: what follows in op_in is of older requests. */
        size_t rest = msg->hdr.len < sizeof(msg->hdr) + used ? 0 : msg->hdr.len - sizeof(msg->hdr) - used;

        if (msg->args_len > rest)
            msg->args_len = (uint32_t)rest;
    }
    /* An answer must not grow over names that a handler still reads; it moves to its place when it is sent. */
    if (e->at == e->payload && used)
        beside = (size_t)mf__round_up(used, MF__CACHE_LINE);
    io->body = e->payload + beside;
    io->body_size = r->payload_room - beside;
}

static bool is_end(int error)
{
    return error == -ENOTCONN || error == -ECONNABORTED || error == -ECANCELED;
}

/* The connection is gone, or at least this ring: what a receive says. */
static int end_of(struct ring *r, struct mf__io *spare, struct mf__io **got)
{
    struct mf__channel *device = r->opts.device;
    int rc = -ENODEV;

    if (r->sys->over(r->opts.kernel, device))
        rc = device->ops->receive(device, spare, got); /* it knows whether it was aborted */
    return rc == -ECONNABORTED ? rc : -ENODEV;
}

static int entry_gone(struct ring *r, const struct mf__cqe *cqe, struct entry *e, struct mf__io *spare,
                      struct mf__io **got)
{
    uint32_t n = (uint32_t)(e - r->entries) / r->opts.depth;
    bool refused = !e->commit_id && !is_end(cqe->res);

    if (refused && atomic_fetch_sub(&r->alive[n], 1) == 1) {
        /* A queue without an entry: the mount never gets ready for rings. */
        mf__ring_refuse(&r->ch, cqe->res);
        if (r->opts.refused)
            r->opts.refused(r->opts.user, cqe->res);
        return -EINTR;
    }
    return atomic_fetch_add(&r->gone, 1) + 1 == r->count ? end_of(r, spare, got) : 0;
}

/* The kernel wants to have the command once more: the answer to INIT is not processed yet, or it was interrupted. */
static int again(struct ring *r, uint32_t index)
{
    int rc;

    if (r->entries[index].commit_id) {
        rc = commit(r, index);
        return passing(rc) ? 0 : rc;
    }
    do {
        nap();
        pthread_mutex_lock(&r->submit);
        rc = -ENODEV;
        if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
            next_register(r, index);
            rc = submit(r);
        }
        pthread_mutex_unlock(&r->submit);
    } while (passing(rc));
    return rc;
}

/* 1: a request was delivered; 0: look again; negative: what the receive returns. */
static int completed(struct ring *r, const struct mf__cqe *cqe, struct mf__io *spare, struct mf__io **got)
{
    uint32_t index = (uint32_t)cqe->user_data;

    if (cqe->user_data == WAKE_DATA) {
        if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
            ring_wake(&r->ch); /* for the next one, who must leave, too */
        return -EINTR;
    }
    if (cqe->user_data == POOL_DATA || index >= r->count)
        return 0; /* where the pool was refused, so are its entries */
    if (cqe->res == 0) {
        deliver(r, index, spare);
        return 1;
    }
    if (cqe->res == -EAGAIN || cqe->res == -EINTR)
        return again(r, index);
    return entry_gone(r, cqe, &r->entries[index], spare, got);
}

static int go_on_registering(struct ring *r)
{
    bool later;
    int rc;

    pthread_mutex_lock(&r->submit);
    rc = atomic_load(&r->state) == 0 ? register_entries(r) : 0;
    later = passing(rc) && ++r->failures < TRIES;
    pthread_mutex_unlock(&r->submit);
    if (later) {
        nap();
        return -EINTR;
    }
    if (rc < 0) {
        mf__ring_refuse(&r->ch, rc);
        if (r->opts.refused)
            r->opts.refused(r->opts.user, rc);
    }
    return rc;
}

/*
 * May an answer wait for the next one, so that one system call submits both? The handler of the next request runs
 * in between: only while handlers return at once, which the session says, and only if there is a next request.
 */
static bool may_hold(struct ring *r)
{
    return atomic_load_explicit(&r->ch.batch, memory_order_relaxed) &&
           atomic_load_explicit(&r->held, memory_order_relaxed) < SUBMISSIONS - 1 && anything_completed(r);
}

/* What is to be done before anything is waited for. */
static int prepare(struct ring *r)
{
    int rc = 0;

    if (atomic_load_explicit(&r->waiting, memory_order_relaxed) && !may_hold(r)) {
        rc = commit_waiting(r);
        if (passing(rc)) {
            nap();
            return -EINTR;
        }
    }
    if (rc == 0 && atomic_load_explicit(&r->state, memory_order_relaxed) == 0)
        rc = go_on_registering(r);
    return rc;
}

/* Everything is registered, or must be by others first. */
static bool may_wait(struct ring *r)
{
    return atomic_load_explicit(&r->state, memory_order_relaxed) == 1 ||
           atomic_load_explicit(&r->missing, memory_order_relaxed);
}

static int await(struct ring *r)
{
    int rc = r->sys->enter(r->opts.kernel, r->fd, 0, 1, MF__URING_ENTER_GETEVENTS);

    if (rc >= 0)
        return 0;
    if (atomic_load_explicit(&r->shut, memory_order_relaxed))
        return -ENODEV;
    if (!passing(rc))
        return rc;
    nap();
    return -EINTR;
}

/* The slot is free, yet what it was last filled with was never answered: a message that wants no answer. */
static void give_back_unanswered(struct mf__channel *ch, struct mf__io *spare)
{
    if (spare->ch && spare->ch->ops == ch->ops) {
        spare->own_thread = spare->ch == ch;
        spare->ch->ops->send(spare->ch, spare, spare->msg.hdr.unique, 0, NULL, 0);
    }
    spare->commit_id = 0;
}

static int ring_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    struct ring *r = ring_of(ch);
    struct mf__cqe cqe;
    int rc;

    if (atomic_load_explicit(&r->shut, memory_order_relaxed))
        return -ENODEV;
    if (spare->commit_id)
        give_back_unanswered(ch, spare);
    do {
        if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
            return -EINTR;
        rc = prepare(r);
        if (rc == 0 && claim_cqe(r, &cqe))
            rc = completed(r, &cqe, spare, got);
        else if (rc == 0 && may_wait(r))
            rc = await(r);
    } while (rc == 0);
    if (rc > 0)
        *got = spare;
    return rc > 0 ? 0 : rc;
}

/* ---- answers --------------------------------------------------------------------------------------- */

/* Gather the body where the request's payload was. At most one piece lies in the entry's own memory. */
static void lay_body(struct entry *e, const struct iovec *iov, int n)
{
    size_t done = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len && iov[i].iov_base != e->at + done)
            memmove(e->at + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
    }
}

static size_t total_length(const struct iovec *iov, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += iov[i].iov_len < SIZE_MAX - sum ? iov[i].iov_len : SIZE_MAX - sum;
    return sum;
}

static void give_to_reader(struct ring *r, uint32_t index)
{
    let_wait(r, index);
    ring_wake(&r->ch);
}

static int commit_or_hold(struct ring *r, uint32_t index)
{
    if (may_hold(r)) {
        atomic_fetch_add_explicit(&r->held, 1, memory_order_relaxed);
        let_wait(r, index);
        return 0;
    }
    if (!atomic_load_explicit(&r->waiting, memory_order_relaxed))
        return commit(r, index);
    let_wait(r, index);
    return commit_waiting(r);
}

static int ring_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    struct ring *r = ring_of(ch);
    struct entry *e = &r->entries[io->entry];
    size_t body = total_length(iov, n);
    int rc = 0;

    if (!io->commit_id)
        return -ENOENT; /* answered: the entry is the kernel's again */
    io->commit_id = 0;
    if (body > r->opts.max_payload) {
        rc = -EINVAL; /* the kernel would not read as much */
        error = -EIO;
        body = 0;
        n = 0;
    }
    lay_body(e, iov, n);
    mf__put_header(e->head->in_out, body, error, unique);
    e->head->ring_ent_in_out.payload_sz = (uint32_t)body;
    if (!io->own_thread) {
        give_to_reader(r, io->entry);
        return rc;
    }
    n = commit_or_hold(r, io->entry);
    /* Where the system had no memory the answer goes out a little later. */
    return n < 0 && !passing(n) ? n : rc;
}

/* Notifications and answers to INTERRUPT travel on the device, beside the ring. */
static int ring_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    struct mf__channel *device = ring_of(ch)->opts.device;

    return device->ops->write_raw(device, msg, len);
}

static int ring_clone(struct mf__channel *ch, struct mf__channel **out)
{
    (void)ch;
    (void)out;
    return -ENOTSUP;
}

/* ---- making and unmaking --------------------------------------------------------------------------- */

static void ring_unmap(struct ring *r)
{
    void *kernel = r->opts.kernel;

    /* All three: the kernel releases a ring only when descriptor and maps are gone. */
    if (r->sqes)
        r->sys->unmap(kernel, r->sqes, r->sqes_size);
    if (r->maps)
        r->sys->unmap(kernel, r->maps, r->maps_size);
    r->sys->close(kernel, r->fd);
}

void mf__ring_shut(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (!atomic_load(&r->shut))
        (void)commit_waiting(r); /* no reader is left to do it; the entries end with the ring */
    pthread_mutex_lock(&r->submit);
    if (!atomic_exchange(&r->shut, true))
        ring_unmap(r);
    pthread_mutex_unlock(&r->submit);
}

static void ring_free(struct ring *r)
{
    mf__region_free(&r->pools);
    mf__region_free(&r->payloads);
    mf__region_free(&r->headers);
    free(r->alive);
    free(r->entries);
    pthread_mutex_destroy(&r->submit);
    free(r);
}

static void ring_close(struct mf__channel *ch)
{
    mf__ring_shut(ch);
    ring_free(ring_of(ch));
}

static const struct mf__transport ring_transport = {
    .name = "io_uring",
    .kind = MF_TRANSPORT_URING,
    .receive = ring_receive,
    .send = ring_send,
    .write_raw = ring_write_raw,
    .clone = ring_clone,
    .wake = ring_wake,
    .close = ring_close,
};

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
        ring_unmap(r);
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
    struct ring *r = calloc(1, sizeof(*r));
    int rc;

    if (!r)
        return -ENOMEM;
    r->opts = *opts;
    r->sys = opts->sys;
    atomic_init(&r->missing, opts->others);
    pthread_mutex_init(&r->submit, NULL);
    rc = ring_memory(r);
    if (rc == 0)
        rc = ring_open(r);
    if (rc < 0) {
        ring_free(r);
        return rc;
    }
    r->ch.ops = &ring_transport;
    r->ch.index = opts->index;
    r->ch.fd = r->sys == &mf__uring_system ? r->fd : -1; /* what a forked child closes */
    atomic_init(&r->ch.refs, 1);
    *out = &r->ch;
    return 0;
}
