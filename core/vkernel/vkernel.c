/* SPDX-License-Identifier: MIT */
/* vkernel.c - a virtual kernel's life, its channels, and everything that takes the lock and waits. */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

/* A thread blocked in receive. Off the list once it is woken; it must look again, and may find nothing. */
struct reader {
    struct mf__vk_link at;
    pthread_cond_t cond;
    struct mf__vk_chan *ch;
    bool woken;
};

/* ---- wake-ups ----------------------------------------------------------------------------------- */

static void wake(struct reader *r)
{
    mf__vk_list_del(&r->at);
    r->woken = true;
    pthread_cond_signal(&r->cond);
}

void mf__vk_wake_reader(struct mf_vkernel *vk)
{
    if (!mf__vk_list_empty(&vk->readers))
        wake(MF__VK_OF(vk->readers.next, struct reader, at));
}

void mf__vk_wake_readers(struct mf_vkernel *vk)
{
    while (!mf__vk_list_empty(&vk->readers))
        mf__vk_wake_reader(vk);
}

void mf__vk_wake_clients(struct mf_vkernel *vk)
{
    pthread_cond_broadcast(&vk->ready);
}

static void time_limit(const struct mf_vkernel *vk, struct timespec *at)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    at->tv_sec += vk->timeout_ms / 1000;
    at->tv_nsec += (long)(vk->timeout_ms % 1000) * 1000000;
    if (at->tv_nsec >= 1000000000) {
        at->tv_sec++;
        at->tv_nsec -= 1000000000;
    }
}

/* ---- life --------------------------------------------------------------------------------------- */

/* Which kernel's minor was the first to offer a flag; older ones are all offered. */
static const struct {
    uint32_t minor;
    uint64_t flags;
} newer[] = {
    { 33, FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT },
    { 36, FUSE_INIT_EXT | FUSE_SECURITY_CTX },
    { 38, FUSE_CREATE_SUPP_GROUP | FUSE_HAS_EXPIRE_ONLY },
    { 39, FUSE_DIRECT_IO_ALLOW_MMAP },
    { 40, FUSE_PASSTHROUGH | FUSE_NO_EXPORT_SUPPORT | FUSE_HAS_RESEND },
    { 41, FUSE_ALLOW_IDMAP },
    { 42, FUSE_OVER_IO_URING },
    { 43, FUSE_REQUEST_TIMEOUT },
};

static uint64_t flags_of(uint32_t minor, bool uring)
{
    uint64_t flags = MF__VK_FLAGS | (uring ? FUSE_OVER_IO_URING : 0);

    for (size_t i = 0; i < MF__ARRAY_SIZE(newer); i++)
        if (minor < newer[i].minor)
            flags &= ~newer[i].flags;
    return flags;
}

static int queue_init(struct mf_vkernel *vk)
{
    struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION,
                               .minor = vk->opts.minor,
                               .max_readahead = 131072,
                               .flags = (uint32_t)vk->opts.flags };

    if (vk->opts.flags & FUSE_INIT_EXT)
        in.flags2 = (uint32_t)(vk->opts.flags >> 32);
    return mf__vk_post(vk, FUSE_INIT, 0, &in, vk->opts.minor < 36 ? 16 : sizeof(in));
}

static int init_locks(struct mf_vkernel *vk)
{
    pthread_condattr_t attr;
    int rc;

    if (pthread_condattr_init(&attr) != 0)
        return -ENOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&vk->ready, &attr);
    pthread_condattr_destroy(&attr);
    if (rc != 0)
        return -ENOMEM;
    if (pthread_mutex_init(&vk->lock, NULL) != 0) {
        pthread_cond_destroy(&vk->ready);
        return -ENOMEM;
    }
    return 0;
}

static void set_defaults(struct mf_vkernel *vk)
{
    if (vk->opts.minor == 0)
        vk->opts.minor = MF__VK_MINOR;
    if (vk->opts.flags == 0)
        vk->opts.flags = flags_of(vk->opts.minor, vk->opts.queues > 0);
    if (vk->opts.clone_errno == 0)
        vk->opts.clone_errno = EINVAL;
    vk->refs = 1;
    vk->cpu = -1;
    vk->uring_sys = vk->opts.queues > 0 ? &mf__vk_calls : NULL;
    vk->timeout_ms = MF__VK_TIMEOUT_MS;
    vk->connected = true;
    vk->minor = vk->opts.minor;
    vk->max_write = MF__VK_PAGE;
    vk->max_pages = 32;
    mf__vk_list_init(&vk->chans);
    mf__vk_list_init(&vk->readers);
    mf__vk_list_init(&vk->pending);
    mf__vk_list_init(&vk->interrupts);
    mf__vk_list_init(&vk->forgets);
    mf__vk_list_init(&vk->known);
    mf__vk_list_init(&vk->urings);
}

static void destroy(struct mf_vkernel *vk)
{
    while (!mf__vk_list_empty(&vk->known)) {
        struct mf__vk_req *req = MF__VK_OF(vk->known.next, struct mf__vk_req, known);

        mf__vk_list_del(&req->known);
        mf__vk_req_free(req);
    }
    while (!mf__vk_list_empty(&vk->chans)) {
        struct mf__vk_chan *ch = MF__VK_OF(vk->chans.next, struct mf__vk_chan, all);

        mf__vk_list_del(&ch->all);
        free(ch);
    }
    mf__vk_queues_free(vk);
    pthread_mutex_destroy(&vk->lock);
    pthread_cond_destroy(&vk->ready);
    free(vk->notify);
    free(vk);
}

/* Takes the lock's place: the last one frees. */
static void unlock_and_put(struct mf_vkernel *vk)
{
    bool last = --vk->refs == 0;

    pthread_mutex_unlock(&vk->lock);
    if (last)
        destroy(vk);
}

int mf_vkernel_new(const struct mf_vkernel_opts *opts, struct mf_vkernel **out)
{
    struct mf_vkernel *vk;
    int rc = 0;

    if (!out)
        return -EINVAL;
    vk = calloc(1, sizeof(*vk));
    if (!vk)
        return -ENOMEM;
    if (opts)
        rc = mf__copy_sized(&vk->opts, sizeof(vk->opts), opts, sizeof(opts->size));
    if (rc == 0)
        rc = init_locks(vk);
    if (rc < 0) {
        free(vk);
        return rc;
    }
    set_defaults(vk);
    rc = mf__vk_queues_new(vk);
    if (rc == 0)
        rc = queue_init(vk);
    if (rc < 0) {
        destroy(vk);
        return rc;
    }
    *out = vk;
    return 0;
}

void mf_vkernel_free(struct mf_vkernel *vk)
{
    if (!vk)
        return;
    mf_vkernel_unmount(vk);
    pthread_mutex_lock(&vk->lock);
    unlock_and_put(vk);
}

void mf_vkernel_set_timeout(struct mf_vkernel *vk, uint32_t milliseconds)
{
    pthread_mutex_lock(&vk->lock);
    vk->timeout_ms = milliseconds ? milliseconds : MF__VK_TIMEOUT_MS;
    pthread_mutex_unlock(&vk->lock);
}

void mf_vkernel_unmount(struct mf_vkernel *vk)
{
    pthread_mutex_lock(&vk->lock);
    vk->unmounted = true;
    mf__vk_disconnect(vk);
    pthread_mutex_unlock(&vk->lock);
}

void mf_vkernel_abort(struct mf_vkernel *vk)
{
    pthread_mutex_lock(&vk->lock);
    if (vk->connected)
        vk->aborted = (vk->flags & FUSE_ABORT_ERROR) != 0;
    mf__vk_disconnect(vk);
    pthread_mutex_unlock(&vk->lock);
}

/* ---- counters ----------------------------------------------------------------------------------- */

uint64_t mf_vkernel_pending(struct mf_vkernel *vk)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = mf__vk_count(vk);
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf_vkernel_reads(struct mf_vkernel *vk, uint32_t channel)
{
    struct mf__vk_link *l;
    uint64_t n = 0;

    pthread_mutex_lock(&vk->lock);
    for (l = vk->chans.next; l != &vk->chans; l = l->next) {
        struct mf__vk_chan *ch = MF__VK_OF(l, struct mf__vk_chan, all);

        if (ch->index == channel)
            n = ch->reads;
    }
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf_vkernel_bad_replies(struct mf_vkernel *vk)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->bad_replies;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf__vkernel_notified(struct mf_vkernel *vk, uint32_t code)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = code < MF__VK_NOTIFY_CODES ? vk->notified[code] : 0;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

size_t mf__vkernel_last_notify(struct mf_vkernel *vk, void *buf, size_t room)
{
    size_t len;

    pthread_mutex_lock(&vk->lock);
    len = vk->notify_len < room ? vk->notify_len : room;
    if (len > 0)
        memcpy(buf, vk->notify, len);
    pthread_mutex_unlock(&vk->lock);
    return len;
}

uint64_t mf__vk_flags(struct mf_vkernel *vk)
{
    uint64_t flags;

    pthread_mutex_lock(&vk->lock);
    flags = vk->flags;
    pthread_mutex_unlock(&vk->lock);
    return flags;
}

uint32_t mf__vk_max_read(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages * MF__VK_PAGE;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint32_t mf__vk_max_write(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages * MF__VK_PAGE;
    if (n > vk->max_write)
        n = vk->max_write;
    if (!(vk->flags & FUSE_BIG_WRITES))
        n = MF__VK_PAGE;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint32_t mf__vk_max_name(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages > 1 ? FUSE_NAME_MAX : 1024;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

/* ---- channels ----------------------------------------------------------------------------------- */

static int add_chan(struct mf_vkernel *vk, struct mf__vk_chan **out)
{
    struct mf__vk_chan *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return -ENOMEM;
    ch->vk = vk;
    ch->open = true;
    ch->index = vk->n_chans++;
    mf__vk_list_init(&ch->held);
    mf__vk_list_add(&ch->all, &vk->chans);
    vk->open_chans++;
    vk->refs++;
    *out = ch;
    return 0;
}

int mf__vk_chan_first(struct mf_vkernel *vk, struct mf__vk_chan **out)
{
    int rc;

    pthread_mutex_lock(&vk->lock);
    rc = vk->n_chans > 0 ? -EBUSY : add_chan(vk, out);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_chan_clone(struct mf__vk_chan *ch, struct mf__vk_chan **out)
{
    struct mf_vkernel *vk = ch->vk;
    int rc;

    pthread_mutex_lock(&vk->lock);
    vk->clones++;
    if (vk->opts.clone_fail_at != 0 && vk->clones >= vk->opts.clone_fail_at)
        rc = -(int)vk->opts.clone_errno;
    else
        rc = add_chan(vk, out);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

void mf__vk_chan_close(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;

    pthread_mutex_lock(&vk->lock);
    ch->open = false;
    while (!mf__vk_list_empty(&ch->held))
        mf__vk_finish(vk, MF__VK_OF(ch->held.next, struct mf__vk_req, at), -ECONNABORTED);
    mf__vk_chan_drop(ch);
    unlock_and_put(vk);
}

void mf__vk_chan_hold(struct mf__vk_chan *ch)
{
    ch->vk->open_chans++;
}

void mf__vk_chan_drop(struct mf__vk_chan *ch)
{
    if (--ch->vk->open_chans == 0)
        mf__vk_disconnect(ch->vk);
}

static int wait_for_more(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;
    struct reader self = { .ch = ch };

    if (pthread_cond_init(&self.cond, NULL) != 0)
        return -ENOMEM;
    mf__vk_list_add(&self.at, &vk->readers);
    while (!self.woken)
        pthread_cond_wait(&self.cond, &vk->lock);
    pthread_cond_destroy(&self.cond);
    return 0;
}

int mf__vk_chan_receive(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len)
{
    struct mf_vkernel *vk = ch->vk;
    int rc;

    pthread_mutex_lock(&vk->lock);
    do {
        if (ch->kicks > 0) {
            ch->kicks--;
            rc = -EINTR;
            break;
        }
        rc = mf__vk_take(ch, buf, size, len);
    } while (rc == -EAGAIN && (rc = wait_for_more(ch)) == 0);
    /* Whoever leaves may have used a wake-up that was meant for what is still there. */
    if (mf__vk_anything(vk))
        mf__vk_wake_reader(vk);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_chan_send(struct mf__vk_chan *ch, const struct iovec *iov, int n)
{
    int rc;

    pthread_mutex_lock(&ch->vk->lock);
    rc = mf__vk_write(ch, iov, n);
    pthread_mutex_unlock(&ch->vk->lock);
    return rc;
}

void mf__vk_chan_kick(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;
    struct mf__vk_link *l;

    pthread_mutex_lock(&vk->lock);
    ch->kicks++;
    for (l = vk->readers.next; l != &vk->readers; l = l->next) {
        struct reader *r = MF__VK_OF(l, struct reader, at);

        if (r->ch == ch) {
            wake(r);
            break;
        }
    }
    pthread_mutex_unlock(&vk->lock);
}

/* ---- clients ------------------------------------------------------------------------------------ */

/* All with the lock held. No request but INIT is made before INIT was answered. */
static bool not_ready(const struct mf_vkernel *vk, bool queues)
{
    return vk->connected && (!vk->initialized || (queues && vk->uring_wanted && !vk->uring_ready));
}

/* `queues`: and before all queues have an entry, where requests shall travel over io_uring. */
static int wait_ready(struct mf_vkernel *vk, bool queues, const struct timespec *limit)
{
    while (not_ready(vk, queues))
        if (pthread_cond_timedwait(&vk->ready, &vk->lock, limit) == ETIMEDOUT && not_ready(vk, queues))
            return -ETIMEDOUT;
    if (!vk->connected)
        return -ENOTCONN;
    return vk->refused ? -ECONNREFUSED : 0;
}

static int submit(struct mf_vkernel *vk, const struct mf__vk_ask *ask, bool tidy, const struct timespec *limit,
                  struct mf__vk_req **out)
{
    struct mf__vk_req *req;
    int rc = wait_ready(vk, true, limit);

    if (rc < 0)
        return rc;
    if (mf__vk_iov_len(ask->in, (int)ask->n_in) > INT32_MAX)
        return -EMSGSIZE;
    req = mf__vk_req_new(&vk->opts, ask->opcode, ask->node, ask->in, ask->n_in, ask->ext_len);
    if (!req)
        return -ENOMEM;
    req->owned = !req->silent;
    req->tidy = tidy;
    mf__vk_enqueue(vk, req);
    *out = req;
    return 0;
}

/* The answer into the caller's hands. */
static int hand_over(const struct mf__vk_req *req, void *out, uint64_t room, uint64_t *len)
{
    uint64_t n = req->out_len < room ? req->out_len : room;

    *len = req->error ? 0 : req->out_len;
    if (req->error)
        return req->error;
    if (n > 0 && out)
        memcpy(out, req->out, n);
    return room < req->out_len ? -ERANGE : 0;
}

static int collect(struct mf_vkernel *vk, struct mf__vk_req *req, const struct timespec *limit)
{
    req->collected = true;
    while (!req->answered)
        if (pthread_cond_timedwait(&req->done, &vk->lock, limit) == ETIMEDOUT && !req->answered) {
            req->collected = false;
            return -ETIMEDOUT;
        }
    return 0;
}

int mf__vk_ready(struct mf_vkernel *vk)
{
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = wait_ready(vk, false, &limit);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_submit(struct mf_vkernel *vk, const struct mf__vk_ask *ask, uint64_t *id)
{
    struct mf__vk_req *req;
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = submit(vk, ask, false, &limit, &req);
    if (rc == 0)
        *id = req->id;
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_collect(struct mf_vkernel *vk, uint64_t id, void *out, uint64_t room, uint64_t *len)
{
    struct mf__vk_req *req;
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    *len = 0;
    req = mf__vk_known(vk, id);
    if (!req || !req->owned || req->collected) {
        pthread_mutex_unlock(&vk->lock);
        return -ENOENT;
    }
    rc = collect(vk, req, &limit);
    if (rc == 0) {
        rc = hand_over(req, out, room, len);
        mf__vk_disown(req);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_ask_raw(struct mf_vkernel *vk, struct mf__vk_ask *ask, bool tidy)
{
    struct mf__vk_req *req = NULL;
    struct timespec limit;
    int rc;

    ask->out_len = 0;
    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = submit(vk, ask, tidy, &limit, &req);
    if (rc == 0 && req->owned) {
        req->collected = true; /* nobody else may wait for it */
        rc = collect(vk, req, &limit);
        if (rc == 0)
            rc = hand_over(req, ask->out, ask->out_room, &ask->out_len);
        mf__vk_disown(req);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_forget(struct mf_vkernel *vk, const struct mf_forget *what, size_t n)
{
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = wait_ready(vk, false, &limit);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = mf__vk_queue_forget(vk, what[i].node, what[i].nlookup);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}
