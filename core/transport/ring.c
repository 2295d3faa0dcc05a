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
 * back: between two holders the submission queue is empty. Who finds it taken leaves his answer to who has it.
 * Completions are claimed one by one with a compare-and-swap on the ring's head: a thread never holds one that it is
 * not about to handle.
 *
 * One thread at a time waits for completions, since the kernel would wake all who do for each. The others follow: one
 * of them is called when the first has taken a request whose handler may wait, or leaves. While handlers return at
 * once nobody is called, and one thread does it all; should a handler wait then, a follower finds out. Where handlers
 * wait often each thread has a ring of its own beside this one: ring_own.c.
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
#include <string.h>

#include "transport/ring_private.h"

static inline void leave(struct ring *r)
{
    if (r->opts.leave)
        r->opts.leave(r->opts.user);
}

/* ---- completions ----------------------------------------------------------------------------------- */

static bool claim_cqe(struct ring *r, struct uring *u, struct mf__cqe *out)
{
    uint32_t head = atomic_load_explicit(u->cq_head, memory_order_acquire);

    for (;;) {
        struct mf__cqe *cqe = &u->cqes[head & u->cq_mask];

        if (head == atomic_load_explicit(u->cq_tail, memory_order_acquire))
            return false;
        /* Whoever comes second reads what the kernel may be writing anew: then the exchange fails. */
        out->user_data = __atomic_load_n(&cqe->user_data, __ATOMIC_RELAXED);
        out->res = __atomic_load_n(&cqe->res, __ATOMIC_RELAXED);
        if (atomic_compare_exchange_weak_explicit(u->cq_head, &head, head + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            break;
    }
    TAKE_OVER(u);
    if (head + 1 != atomic_load_explicit(u->cq_tail, memory_order_relaxed))
        count_one(&r->counts.behind);
    return true;
}

/*
 * Where the payload of a request lies: in the entry's own buffer, or (7.46) in its queue's pool, at the offset that
 * came with it. NULL: it lies nowhere.
 */
static uint8_t *payload_of(const struct ring *r, const struct entry *e)
{
    size_t size, offset;
    uint32_t n;

    if (e->head->ring_ent_in_out.payload_sz > r->opts.max_payload)
        return NULL;
    if (!r->opts.pool)
        return e->payload;
    size = (size_t)r->opts.depth * r->opts.max_payload;
    offset = e->head->ring_ent_in_out.padding;
    n = (uint32_t)(e - r->entries) / r->opts.depth;
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
    mf__count(&e->requests, 1);
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

    if (r->u.sys->over(r->u.kernel, device))
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

/* Where an answer is to be committed, which brings the entry there. */
static struct uring *into(struct ring *r, struct mf__own_ring *own)
{
    if (!own)
        return &r->u;
    atomic_fetch_add_explicit(&own->entries, 1, memory_order_relaxed);
    return &own->u;
}

/* The kernel wants to have the command once more: the answer to INIT is not processed yet, or it was interrupted. */
static int again(struct ring *r, struct mf__own_ring *own, uint32_t index)
{
    int rc;

    if (r->entries[index].commit_id) {
        rc = mf__ring_commit(r, into(r, own), index);
        return rc > 0 || passing(rc) ? 0 : rc;
    }
    do {
        nap();
        rc = mf__ring_register_again(r, index);
    } while (passing(rc));
    return rc;
}

/* Somebody shall look at something else. */
static int woken(struct ring *r, const struct mf__own_ring *own)
{
    if (own)
        return -EINTR;
    atomic_store(&r->nudged, false); /* before what waits is looked at */
    if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
        mf__ring_wake(&r->ch); /* for the next one, who must leave, too */
    return -EINTR;
}

/* No request: 0: look again; negative: what the receive returns. */
MF__COLD static int completed_else(struct ring *r, struct mf__own_ring *own, const struct mf__cqe *cqe,
                                   struct mf__io *spare, struct mf__io **got)
{
    uint32_t index = (uint32_t)cqe->user_data;

    leave(r);
    if (cqe->user_data == WAKE_DATA)
        return woken(r, own);
    if (cqe->user_data == POOL_DATA || index >= r->count)
        return 0; /* where the pool was refused, so are its entries */
    if (cqe->res == -EAGAIN || cqe->res == -EINTR)
        return again(r, own, index);
    return entry_gone(r, cqe, &r->entries[index], spare, got);
}

/* own: where it completed, NULL: on the shared ring. 1: a request was delivered; else as above. */
static int completed(struct ring *r, struct mf__own_ring *own, const struct mf__cqe *cqe, struct mf__io *spare,
                     struct mf__io **got)
{
    if (own && cqe->user_data < r->count)
        atomic_fetch_sub_explicit(&own->entries, 1, memory_order_relaxed);
    if (cqe->res != 0 || cqe->user_data >= r->count)
        return completed_else(r, own, cqe, spare, got);
    deliver(r, (uint32_t)cqe->user_data, spare);
    return 1;
}

MF__COLD static int go_on_registering(struct ring *r)
{
    bool later;
    int rc;

    leave(r);
    pthread_mutex_lock(&r->u.submit);
    rc = atomic_load(&r->state) == 0 ? mf__ring_register(r) : 0;
    later = passing(rc) && ++r->failures < TRIES;
    mf__uring_unlock(&r->u);
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
 * May an answer wait for the next one, so that one system call submits both? Only where many requests come and there is a
 * next one. Should its handler be one that may wait, it goes out before that.
 */
static bool may_hold(struct ring *r)
{
    return somebody_looks(r) && atomic_load_explicit(&r->u.held, memory_order_relaxed) < SUBMISSIONS - 1 &&
           anything_completed(&r->u);
}

bool mf__ring_has_more(struct mf__channel *ch)
{
    return may_hold(ring_of(ch));
}

/* For somebody who submits them: they are not left to one who is about to. */
static inline bool answers_wait(const struct uring *u)
{
    return atomic_load_explicit(&u->waiting, memory_order_relaxed) != 0 && !atomic_load(&u->left);
}

static inline int submit_waiting(struct ring *r, struct uring *u)
{
    int rc;

    leave(r);
    rc = mf__ring_commit_waiting(r, u);
    if (!passing(rc))
        return rc > 0 ? 0 : rc;
    nap();
    return -EINTR;
}

void mf__ring_flush(struct mf__channel *ch, struct mf__own_ring *own)
{
    struct ring *r = ring_of(ch);

    /* What fails waits for the next one who comes here. */
    if (answers_wait(&r->u))
        (void)mf__ring_commit_waiting(r, &r->u);
    if (own && answers_wait(&own->u))
        (void)mf__ring_commit_waiting(r, &own->u);
}

/* What is to be done before anything is waited for. */
static int prepare(struct ring *r)
{
    int rc = 0;

    if (answers_wait(&r->u) && !may_hold(r))
        rc = submit_waiting(r, &r->u);
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

static int wait_for_completion(struct uring *u)
{
    return u->sys->enter(u->kernel, u->fd, 0, 1, MF__URING_ENTER_GETEVENTS);
}

static int waited(const struct uring *u, int rc)
{
    if (rc >= 0)
        return 0;
    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return -ENODEV;
    if (!passing(rc))
        return rc;
    nap();
    return -EINTR;
}

/*
 * Another one was there first, and comes again: he would take what comes then, too, and this thread be woken each time.
 * Should he be long in his handler, that is found out like elsewhere.
 */
static bool was_woken_in_vain(const struct ring *r, uint32_t head)
{
    return somebody_looks(r) && !anything_completed(&r->u) &&
           atomic_load_explicit(r->u.cq_head, memory_order_relaxed) != head;
}

static int await(struct ring *r)
{
    uint32_t head;
    int rc;

    /* Kept back for a request that another one took. */
    if (answers_wait(&r->u))
        return submit_waiting(r, &r->u);
    leave(r);
    if (atomic_exchange(&r->led, true)) {
        mf__ring_follow(r, false);
        return 0;
    }
    mf__count(&r->counts.waits, 1);
    head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);
    rc = wait_for_completion(&r->u);
    atomic_store(&r->led, false);
    if (rc >= 0 && was_woken_in_vain(r, head))
        mf__ring_follow(r, true);
    return waited(&r->u, rc);
}

static int await_own(struct ring *r, struct mf__own_ring *own)
{
    int rc;

    leave(r);
    atomic_store(&own->awaited, true);
    rc = wait_for_completion(&own->u);
    atomic_store(&own->awaited, false);
    return waited(&own->u, rc);
}

/* The slot is free, yet what it was last filled with was never answered: a message that wants no answer. */
MF__COLD static void give_back_unanswered(struct mf__channel *ch, struct mf__io *spare)
{
    leave(ring_of(ch));
    if (spare->ch && spare->ch->ops == ch->ops) {
        spare->own_thread = spare->receives_next = spare->ch == ch;
        spare->ch->ops->send(spare->ch, spare, spare->msg.hdr.unique, 0, NULL, 0);
    }
    spare->commit_id = 0;
}

static bool another_must_wait(struct ring *r, const struct mf__io *got)
{
    if (!atomic_load(&r->followers) && !answers_wait(&r->u))
        return false; /* there is nobody to call, and nothing to submit */
    return !somebody_looks(r) || !r->opts.may_wait || r->opts.may_wait(r->opts.user, got->msg.hdr.opcode);
}

/* 0: nothing will come there; else as receive_shared(). */
static int receive_own(struct ring *r, struct mf__own_ring *own, struct mf__io *spare, struct mf__io **got)
{
    struct mf__cqe cqe;
    int rc = 0;

    while (rc == 0 && holds(own)) {
        if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
            rc = -EINTR;
        else if (answers_wait(&own->u))
            rc = submit_waiting(r, &own->u);
        if (rc == 0 && claim_cqe(r, &own->u, &cqe))
            rc = completed(r, own, &cqe, spare, got);
        else if (rc == 0)
            rc = await_own(r, own);
    }
    if (rc > 0)
        mf__count(&own->requests, 1);
    return rc;
}

/* 1: a request; or negative. */
static inline int receive_shared(struct ring *r, struct mf__io *spare, struct mf__io **got)
{
    struct mf__cqe cqe;
    int rc;

    do {
        rc = atomic_load_explicit(&r->state, memory_order_relaxed) < 0 ? -EINTR : prepare(r);
        if (rc == 0 && claim_cqe(r, &r->u, &cqe))
            rc = completed(r, NULL, &cqe, spare, got);
        else if (rc == 0 && may_wait(r))
            rc = await(r);
    } while (rc == 0);
    if (rc < 0 || another_must_wait(r, spare)) {
        leave(r);
        mf__ring_flush(&r->ch, NULL);
        mf__ring_call(&r->ch);
    }
    return rc;
}

static int ring_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    struct ring *r = ring_of(ch);
    int rc = 0;

    if (atomic_load_explicit(&r->u.shut, memory_order_relaxed))
        return -ENODEV;
    if (spare->commit_id)
        give_back_unanswered(ch, spare);
    if (spare->own)
        rc = receive_own(r, spare->own, spare, got);
    if (rc == 0)
        rc = receive_shared(r, spare, got);
    if (rc <= 0)
        return rc;
    *got = spare;
    if (atomic_load_explicit(&ch->calling, memory_order_relaxed) != MF__OWN_RINGS)
        spare->own = NULL; /* its answer goes out on the shared one */
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------------- */

static uint32_t come_back(struct ring *r, struct uring *u)
{
    struct mf__cqe cqe;
    uint32_t n = 0;

    (void)mf__ring_commit_waiting(r, u);
    while (claim_cqe(r, u, &cqe))
        n += cqe.user_data < r->count;
    return n;
}

bool mf__ring_take_back(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t n = come_back(r, &r->u);

    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        n += come_back(r, &own->u);
    /* One that was refused never had a request under way, and not each of its entries tells that it is gone. */
    return atomic_fetch_add(&r->gone, n) + n >= r->armed || atomic_load(&r->state) < 0;
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

/* For a limit that need not be exact. */
static void count_held(struct uring *u)
{
    uint32_t held = atomic_load_explicit(&u->held, memory_order_relaxed);

    atomic_store_explicit(&u->held, held + 1, memory_order_relaxed);
}

MF__COLD static void give_to_reader(struct ring *r, uint32_t index)
{
    mf__ring_let_wait(r, &r->u, index);
    mf__ring_nudge(r);
}

/* The reader's own ring, if the shared one has somebody else to wait there. */
static inline struct mf__own_ring *own_of(struct ring *r, const struct mf__io *io)
{
    return io->own && (atomic_load(&r->led) || atomic_load(&r->followers)) ? io->own : NULL;
}

/*
 * While a system call lets another task run, the processor forgets where the functions that led to it return to. So an
 * answer is best submitted where few have been called, by the receive that follows, and several at once if there is more
 * to do.
 */
static int commit_or_hold(struct ring *r, const struct mf__io *io)
{
    struct uring *u = into(r, own_of(r, io));

    if (io->receives_next) {
        count_held(u);
        mf__ring_let_wait(r, u, io->entry);
        return MF__SENT_LATER;
    }
    if (!answers_wait(u))
        return mf__ring_commit(r, u, io->entry);
    mf__ring_let_wait(r, u, io->entry);
    return mf__ring_commit_waiting(r, u);
}

static int ring_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    struct ring *r = ring_of(ch);
    struct entry *e = &r->entries[io->entry];
    size_t body = mf__iov_length(iov, n);
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
    n = commit_or_hold(r, io);
    /* Where the system had no memory the answer goes out a little later. */
    return rc < 0 || passing(n) ? rc : n;
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

const struct mf__transport mf__ring_transport = {
    .name = "io_uring",
    .kind = MF_TRANSPORT_URING,
    .receive = ring_receive,
    .send = ring_send,
    .write_raw = ring_write_raw,
    .clone = ring_clone,
    .wake = mf__ring_wake,
    .close = mf__ring_close,
};
