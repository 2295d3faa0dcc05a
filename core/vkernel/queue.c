/* SPDX-License-Identifier: MIT */
/* queue.c - what is queued, and what a read of a channel delivers. Nothing here waits. */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

/* With both waiting, so many reads take forgets, then so many take requests. */
#define FORGET_TURN 16u
#define REQUEST_TURN 8u

#define HEADER sizeof(struct fuse_in_header)

/* ---- requests ----------------------------------------------------------------------------------- */

/* A 32-bit field of a request's structure; 0 where the request is too short to have it. */
static uint32_t field(const uint8_t *body, size_t len, size_t offset)
{
    uint32_t value = 0;

    if (len >= offset + sizeof(value))
        memcpy(&value, body + offset, sizeof(value));
    return value;
}

static void exactly(uint32_t size, uint32_t *least, uint32_t *most)
{
    *least = *most = size;
}

void mf__vk_reply_size(uint32_t opcode, const void *body, size_t len, uint32_t *least, uint32_t *most)
{
    uint32_t size;

    exactly(0, least, most);
    switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_LINK: exactly(128, least, most); break;
    case FUSE_GETATTR:
    case FUSE_SETATTR: exactly(104, least, most); break;
    case FUSE_OPEN:
    case FUSE_OPENDIR: exactly(16, least, most); break;
    case FUSE_CREATE:
    case FUSE_TMPFILE: exactly(144, least, most); break;
    case FUSE_STATFS: exactly(80, least, most); break;
    case FUSE_GETLK: exactly(24, least, most); break;
    case FUSE_STATX: exactly(288, least, most); break;
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_BMAP:
    case FUSE_POLL:
    case FUSE_LSEEK: exactly(8, least, most); break;
    case FUSE_INIT: *most = 64; break;
    case FUSE_READLINK: *most = MF__VK_PAGE - 1; break;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: *most = field(body, len, offsetof(struct fuse_read_in, size)); break;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        size = field(body, len, offsetof(struct fuse_getxattr_in, size));
        if (size == 0)
            exactly(8, least, most);
        else
            *most = size;
        break;
    case FUSE_IOCTL:
        *least = 16;
        size = field(body, len, offsetof(struct fuse_ioctl_in, out_size));
        *most = size > UINT32_MAX - 16 ? UINT32_MAX : 16 + size;
        break;
    default:
        /* Whoever asks what no kernel asks must look at the answer himself. */
        if (!mf__opcode(opcode)->known)
            *most = UINT32_MAX;
        break;
    }
}

static bool is_silent(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_NOTIFY_REPLY ||
           opcode == FUSE_INTERRUPT;
}

/* Requests that the kernel sends for itself carry no credentials. */
static bool is_kernels_own(uint32_t opcode)
{
    return is_silent(opcode) || opcode == FUSE_INIT || opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR ||
           opcode == FUSE_DESTROY;
}

static void fill_header(struct mf__vk_req *req, const struct mf_vkernel_opts *as, uint64_t node, uint32_t ext_len)
{
    struct fuse_in_header *hdr = mf__vk_header(req->msg);

    memset(hdr, 0, sizeof(*hdr));
    hdr->len = req->len;
    hdr->opcode = req->opcode;
    hdr->nodeid = node;
    hdr->total_extlen = (uint16_t)(ext_len / 8);
    if (as && !is_kernels_own(req->opcode)) {
        hdr->uid = as->uid;
        hdr->gid = as->gid;
        hdr->pid = as->pid;
    }
}

static bool init_done_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    bool ok;

    if (pthread_condattr_init(&attr) != 0)
        return false;
    ok = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(cond, &attr) == 0;
    pthread_condattr_destroy(&attr);
    return ok;
}

struct mf__vk_req *mf__vk_req_new(const struct mf_vkernel_opts *as, uint32_t opcode, uint64_t node,
                                  const struct iovec *parts, uint32_t n, uint32_t ext_len)
{
    size_t body = mf__vk_iov_len(parts, (int)n);
    struct mf__vk_req *req;

    if (body > INT32_MAX)
        return NULL;
    req = calloc(1, sizeof(*req) + HEADER + body);
    if (!req)
        return NULL;
    if (!init_done_cond(&req->done)) {
        free(req);
        return NULL;
    }
    mf__vk_list_init(&req->at);
    mf__vk_list_init(&req->intr);
    mf__vk_list_init(&req->known);
    req->opcode = opcode;
    req->len = (uint32_t)(HEADER + body);
    req->silent = is_silent(opcode);
    fill_header(req, as, node, ext_len);
    mf__vk_gather(req->msg + HEADER, 0, body, parts, (int)n);
    mf__vk_reply_size(opcode, req->msg + HEADER, body, &req->out_least, &req->out_most);
    return req;
}

void mf__vk_req_free(struct mf__vk_req *req)
{
    pthread_cond_destroy(&req->done);
    free(req->out);
    free(req);
}

static void forget_req(struct mf__vk_req *req)
{
    mf__vk_list_del(&req->at);
    mf__vk_list_del(&req->intr);
    mf__vk_list_del(&req->known);
    mf__vk_req_free(req);
}

struct mf__vk_req *mf__vk_known(struct mf_vkernel *vk, uint64_t id)
{
    struct mf__vk_link *l;

    for (l = vk->known.next; l != &vk->known; l = l->next) {
        struct mf__vk_req *req = MF__VK_OF(l, struct mf__vk_req, known);

        if (req->id == id)
            return req;
    }
    return NULL;
}

void mf__vk_finish(struct mf_vkernel *vk, struct mf__vk_req *req, int error)
{
    mf__vk_list_del(&req->at);
    mf__vk_list_del(&req->intr);
    req->where = MF__VK_NOWHERE;
    req->holder = NULL;
    if (req->entry)
        req->entry->req = NULL;
    req->entry = NULL;
    req->answered = true;
    req->error = error;
    if (req->opcode == FUSE_INIT && !vk->initialized) {
        vk->initialized = true;
        vk->refused = error != 0;
        mf__vk_wake_clients(vk);
    }
    if (req->owned)
        pthread_cond_broadcast(&req->done);
    else
        forget_req(req);
}

void mf__vk_disown(struct mf__vk_req *req)
{
    req->owned = false;
    /* What was read must be answered to be gone; what was not is taken back. */
    if (req->where != MF__VK_HELD)
        forget_req(req);
}

/* ---- the queue ---------------------------------------------------------------------------------- */

static uint64_t next_id(struct mf_vkernel *vk)
{
    vk->last_id += FUSE_REQ_ID_STEP;
    return vk->last_id;
}

void mf__vk_enqueue(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    req->id = next_id(vk);
    /* The answer to a RETRIEVE has the id that the filesystem chose. */
    if (mf__vk_header(req->msg)->unique == 0)
        mf__vk_header(req->msg)->unique = req->id;
    req->where = MF__VK_PENDING;
    mf__vk_list_add(&req->known, &vk->known);
    if (mf__vk_takes_ring(vk, req)) {
        mf__vk_queue_on_cpu(vk, req);
        return;
    }
    mf__vk_list_add(&req->at, &vk->pending);
    mf__vk_wake_reader(vk);
}

int mf__vk_post(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *body, size_t len)
{
    struct iovec part = { .iov_base = (void *)(uintptr_t)body, .iov_len = len };
    struct mf__vk_req *req = mf__vk_req_new(&vk->opts, opcode, node, &part, 1, 0);

    if (!req)
        return -ENOMEM;
    mf__vk_enqueue(vk, req);
    return 0;
}

int mf__vk_queue_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup)
{
    struct mf__vk_forget *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->one = (struct fuse_forget_one){ .nodeid = node, .nlookup = nlookup };
    mf__vk_list_add(&f->at, &vk->forgets);
    mf__vk_wake_reader(vk);
    return 0;
}

static void queue_intr(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    if (vk->no_interrupt || !mf__vk_list_empty(&req->intr))
        return;
    mf__vk_list_add(&req->intr, &vk->interrupts);
    mf__vk_wake_reader(vk);
}

int mf__vk_queue_interrupt(struct mf_vkernel *vk, uint64_t id)
{
    struct mf__vk_req *req = mf__vk_known(vk, id);

    if (!req || req->where == MF__VK_NOWHERE || req->silent)
        return -ENOENT;
    if (req->interrupted)
        return 0;
    /* What nobody has read yet is remembered: the INTERRUPT follows its request. */
    req->interrupted = true;
    if (req->where == MF__VK_HELD)
        queue_intr(vk, req);
    return 0;
}

static uint64_t list_count(const struct mf__vk_link *head)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

bool mf__vk_anything(const struct mf_vkernel *vk)
{
    return !mf__vk_list_empty(&vk->pending) || !mf__vk_list_empty(&vk->interrupts) || !mf__vk_list_empty(&vk->forgets);
}

uint64_t mf__vk_count(const struct mf_vkernel *vk)
{
    uint64_t n = list_count(&vk->pending) + list_count(&vk->interrupts) + list_count(&vk->forgets);
    const struct mf__vk_link *l;

    for (l = vk->chans.next; l != &vk->chans; l = l->next)
        n += list_count(&MF__VK_OF(l, struct mf__vk_chan, all)->held);
    return n + mf__vk_ring_count(vk);
}

/* ---- reading ------------------------------------------------------------------------------------ */

static size_t deliver_interrupt(struct mf_vkernel *vk, uint8_t *buf)
{
    struct mf__vk_req *req = MF__VK_OF(vk->interrupts.next, struct mf__vk_req, intr);
    uint64_t target = mf__vk_header(req->msg)->unique;
    struct fuse_in_header hdr = { .len = HEADER + sizeof(struct fuse_interrupt_in),
                                  .opcode = FUSE_INTERRUPT,
                                  .unique = target | FUSE_INT_REQ_BIT };
    struct fuse_interrupt_in in = { .unique = target };

    mf__vk_list_del(&req->intr);
    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + sizeof(hdr), &in, sizeof(in));
    return hdr.len;
}

static struct fuse_forget_one take_forget(struct mf_vkernel *vk)
{
    struct mf__vk_forget *f = MF__VK_OF(vk->forgets.next, struct mf__vk_forget, at);
    struct fuse_forget_one one = f->one;

    mf__vk_list_del(&f->at);
    free(f);
    return one;
}

static size_t deliver_forget(struct mf_vkernel *vk, uint8_t *buf)
{
    struct fuse_forget_one one = take_forget(vk);
    struct fuse_forget_in in = { .nlookup = one.nlookup };
    struct fuse_in_header hdr = {
        .len = HEADER + sizeof(in), .opcode = FUSE_FORGET, .unique = next_id(vk), .nodeid = one.nodeid
    };

    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + sizeof(hdr), &in, sizeof(in));
    return hdr.len;
}

static size_t deliver_forgets(struct mf_vkernel *vk, uint8_t *buf, size_t size)
{
    struct fuse_batch_forget_in in = { .count = 0 };
    struct fuse_in_header hdr = { .opcode = FUSE_BATCH_FORGET, .unique = next_id(vk) };
    size_t room = (size - HEADER - sizeof(in)) / sizeof(struct fuse_forget_one);
    uint8_t *at = buf + HEADER + sizeof(in);

    while (in.count < room && !mf__vk_list_empty(&vk->forgets)) {
        struct fuse_forget_one one = take_forget(vk);

        memcpy(at, &one, sizeof(one));
        at += sizeof(one);
        in.count++;
    }
    hdr.len = (uint32_t)(at - buf);
    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + HEADER, &in, sizeof(in));
    return hdr.len;
}

static bool forgets_are_next(struct mf_vkernel *vk)
{
    if (mf__vk_list_empty(&vk->forgets))
        return false;
    if (mf__vk_list_empty(&vk->pending))
        return true;
    if (vk->forget_turn > 0) {
        vk->forget_turn--;
        return true;
    }
    if (++vk->request_turn >= REQUEST_TURN) {
        vk->request_turn = 0;
        vk->forget_turn = FORGET_TURN;
    }
    return false;
}

static void deliver_request(struct mf__vk_chan *ch, struct mf__vk_req *req, uint8_t *buf)
{
    memcpy(buf, req->msg, req->len);
    mf__vk_list_del(&req->at);
    if (req->silent) {
        mf__vk_finish(ch->vk, req, 0);
        return;
    }
    req->where = MF__VK_HELD;
    req->holder = ch;
    mf__vk_list_add(&req->at, &ch->held);
    if (req->interrupted)
        queue_intr(ch->vk, req);
}

/* The first request that fits; one that does not fails at its caller. */
static size_t deliver_pending(struct mf__vk_chan *ch, uint8_t *buf, size_t size)
{
    struct mf_vkernel *vk = ch->vk;

    while (!mf__vk_list_empty(&vk->pending)) {
        struct mf__vk_req *req = MF__VK_OF(vk->pending.next, struct mf__vk_req, at);
        size_t len = req->len;

        if (len <= size) {
            deliver_request(ch, req, buf);
            return len;
        }
        mf__vk_finish(vk, req, req->opcode == FUSE_SETXATTR ? -E2BIG : -EIO);
    }
    return 0;
}

int mf__vk_take(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len)
{
    struct mf_vkernel *vk = ch->vk;
    size_t least = HEADER + sizeof(struct fuse_write_in) + vk->max_write;

    if (size < FUSE_MIN_READ_BUFFER || size < least)
        return -EINVAL;
    if (!vk->connected)
        return vk->aborted ? -ECONNABORTED : -ENODEV;
    if (!mf__vk_list_empty(&vk->interrupts))
        *len = deliver_interrupt(vk, buf);
    else if (!forgets_are_next(vk))
        *len = deliver_pending(ch, buf, size);
    else if (vk->minor < 16 || vk->forgets.next->next == &vk->forgets)
        *len = deliver_forget(vk, buf);
    else
        *len = deliver_forgets(vk, buf, size);
    if (*len == 0)
        return mf__vk_anything(vk) ? mf__vk_take(ch, buf, size, len) : -EAGAIN;
    ch->reads++;
    return 0;
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void fail_all(struct mf_vkernel *vk, struct mf__vk_link *head)
{
    while (!mf__vk_list_empty(head))
        mf__vk_finish(vk, MF__VK_OF(head->next, struct mf__vk_req, at), -ECONNABORTED);
}

void mf__vk_disconnect(struct mf_vkernel *vk)
{
    struct mf__vk_link *l;

    if (!vk->connected)
        return;
    vk->connected = false;
    fail_all(vk, &vk->pending);
    for (l = vk->chans.next; l != &vk->chans; l = l->next)
        fail_all(vk, &MF__VK_OF(l, struct mf__vk_chan, all)->held);
    mf__vk_uring_disconnect(vk);
    while (!mf__vk_list_empty(&vk->forgets))
        take_forget(vk);
    mf__vk_wake_readers(vk);
    mf__vk_wake_clients(vk);
}
