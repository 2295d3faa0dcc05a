/* SPDX-License-Identifier: MIT */
/*
 * uring.c - requests over io_uring: the queues of the possible CPUs, their entries, and the commands that the
 * filesystem gives. Nothing here waits.
 *
 * A request is copied into the entry's buffers by whoever sends it, not in the task that armed the entry: there is
 * no other difference to see, as long as that task lives.
 */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

#define WORST_ERROR 512 /* the first that is none */
#define STALE 0xa5      /* what an entry holds where a request has nothing */
#define MAX_PIECES 256u

/* ---- queues ------------------------------------------------------------------------------------- */

int mf__vk_queues_new(struct mf_vkernel *vk)
{
    uint32_t n = vk->opts.queues;

    if (n == 0)
        return 0;
    vk->opts.queues = 0; /* until they are there */
    if (n > UINT16_MAX)
        return -EINVAL;
    vk->queues = calloc(n, sizeof(*vk->queues));
    if (!vk->queues)
        return -ENOMEM;
    vk->opts.queues = n;
    for (uint32_t i = 0; i < n; i++) {
        mf__vk_list_init(&vk->queues[i].idle);
        mf__vk_list_init(&vk->queues[i].busy);
        mf__vk_list_init(&vk->queues[i].pending);
    }
    return 0;
}

static void free_entry(struct mf__vk_entry *e)
{
    mf__vk_list_del(&e->at);
    mf__vk_task_put(e->task);
    free(e);
}

void mf__vk_queues_free(struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++) {
        struct mf__vk_queue *q = &vk->queues[i];

        while (!mf__vk_list_empty(&q->idle))
            free_entry(MF__VK_OF(q->idle.next, struct mf__vk_entry, at));
        while (!mf__vk_list_empty(&q->busy))
            free_entry(MF__VK_OF(q->busy.next, struct mf__vk_entry, at));
    }
    free(vk->queues);
}

void mf__vk_uring_agreed(struct mf_vkernel *vk)
{
    vk->uring_wanted = vk->opts.queues > 0 && (vk->flags & FUSE_OVER_IO_URING) != 0;
    vk->max_payload = FUSE_MIN_READ_BUFFER;
    if (vk->max_payload < vk->max_write)
        vk->max_payload = vk->max_write;
    if (vk->max_payload < vk->max_pages * MF__VK_PAGE)
        vk->max_payload = vk->max_pages * MF__VK_PAGE;
}

static uint64_t length_of(const struct mf__vk_link *head)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

static uint64_t busy_count(const struct mf__vk_queue *q)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = q->busy.next; l != &q->busy; l = l->next)
        n += MF__VK_OF(l, struct mf__vk_entry, at)->req != NULL;
    return n;
}

uint64_t mf__vk_ring_count(const struct mf_vkernel *vk)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < vk->opts.queues; i++)
        n += busy_count(&vk->queues[i]) + length_of(&vk->queues[i].pending);
    return n;
}

/* ---- requests in the entries' layout ------------------------------------------------------------- */

/* Bytes of the structure that a kernel sends first, apart from what follows it. */
static uint32_t structure_size(const struct mf_vkernel *vk, uint32_t opcode)
{
    switch (opcode) {
    case FUSE_GETATTR: return 16;
    case FUSE_SETATTR: return 88;
    case FUSE_MKNOD: return 16;
    case FUSE_MKDIR:
    case FUSE_RENAME:
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_ACCESS:
    case FUSE_SYNCFS: return 8;
    case FUSE_SETXATTR: return vk->flags & FUSE_SETXATTR_EXT ? 16 : 8;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_WRITE: return 40;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_POLL:
    case FUSE_LSEEK:
    case FUSE_STATX: return 24;
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_BMAP:
    case FUSE_RENAME2: return 16;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return 48;
    case FUSE_IOCTL:
    case FUSE_FALLOCATE: return 32;
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64: return 56;
    default: return 0; /* NOTIFY_REPLY's travels in the payload */
    }
}

/* Pieces are handed out in turn, so that an entry does not have the same one each time. */
static uint8_t *take_piece(struct mf_vkernel *vk, struct mf__vk_queue *q)
{
    for (uint32_t i = 0; i < q->pieces; i++) {
        uint32_t n = (q->next_piece + i) % q->pieces;

        if (q->taken[n / 64] >> (n % 64) & 1)
            continue;
        q->taken[n / 64] |= 1ull << (n % 64);
        q->next_piece = n + 1;
        return q->pool + (size_t)n * vk->max_payload;
    }
    return NULL;
}

static void give_piece(struct mf_vkernel *vk, struct mf__vk_entry *e)
{
    struct mf__vk_queue *q = e->queue;

    if (e->piece && e->piece != e->payload) {
        uint32_t n = (uint32_t)((size_t)(e->piece - q->pool) / vk->max_payload);

        q->taken[n / 64] &= ~(1ull << (n % 64));
    }
    e->piece = NULL;
}

/* Into the entry's buffers. 0 or what the request's caller gets. */
static int copy_in(struct mf_vkernel *vk, struct mf__vk_entry *e, const struct mf__vk_req *req)
{
    const uint8_t *body = req->msg + sizeof(struct fuse_in_header);
    uint32_t len = req->len - (uint32_t)sizeof(struct fuse_in_header);
    uint32_t first = structure_size(vk, req->opcode);
    struct fuse_uring_ent_in_out io = { .commit_id = mf__vk_header(req->msg)->unique };

    if (first > len)
        first = len;
    if (len - first > vk->max_payload)
        return -EIO;
    e->piece = e->payload ? e->payload : take_piece(vk, e->queue);
    if (!e->piece)
        return -EIO;
    if (!e->payload)
        io.padding = (uint32_t)(e->piece - e->queue->pool);
    io.payload_sz = len - first;
    memset(e->head, STALE, sizeof(*e->head));
    memcpy(e->head->in_out, req->msg, sizeof(struct fuse_in_header));
    memcpy(e->head->op_in, body, first);
    memcpy(e->piece, body + first, len - first);
    memcpy(&e->head->ring_ent_in_out, &io, sizeof(io));
    return 0;
}

/* An entry that is in no list gets this request. false: it is free again. */
static bool deliver(struct mf_vkernel *vk, struct mf__vk_entry *e, struct mf__vk_req *req)
{
    struct mf__vk_queue *q = e->queue;
    bool lost = atomic_load(&e->task->dead);
    int rc = lost ? -ECANCELED : copy_in(vk, e, req);
    uint64_t busy;

    mf__vk_list_del(&req->at);
    mf__vk_list_del(&e->at);
    if (rc < 0) {
        mf__vk_finish(vk, req, rc);
        if (!lost)
            return false;
        mf__vk_post_cqe(e->ring, e->user_data, -ECANCELED);
        free_entry(e);
        return true;
    }
    req->where = MF__VK_HELD;
    req->entry = e;
    e->req = req;
    mf__vk_list_add(&e->at, &q->busy);
    q->delivered++;
    busy = length_of(&q->busy);
    if (busy > q->most_busy)
        q->most_busy = (uint32_t)busy;
    mf__vk_post_cqe(e->ring, e->user_data, 0);
    return true;
}

/* The entry is idle: it takes what waits, or waits itself. */
static void rest(struct mf_vkernel *vk, struct mf__vk_entry *e)
{
    struct mf__vk_queue *q = e->queue;

    mf__vk_list_del(&e->at);
    while (!mf__vk_list_empty(&q->pending))
        if (deliver(vk, e, MF__VK_OF(q->pending.next, struct mf__vk_req, at)))
            return;
    mf__vk_list_add(&e->at, q->idle.next); /* at the head */
}

bool mf__vk_takes_ring(const struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    return vk->uring_ready && (!req->silent || req->opcode == FUSE_NOTIFY_REPLY) && req->opcode != FUSE_INIT;
}

void mf__vk_queue_on_cpu(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    uint32_t cpu = vk->cpu < 0 ? vk->next_cpu++ % vk->opts.queues : (uint32_t)vk->cpu;
    struct mf__vk_queue *q = &vk->queues[cpu];
    struct mf__vk_entry *e;

    if (mf__vk_list_empty(&q->idle)) {
        mf__vk_list_add(&req->at, &q->pending);
        return;
    }
    /* Not what waits longest: an entry that came after it does not know of it. */
    e = MF__VK_OF(q->idle.next, struct mf__vk_entry, at);
    if (!deliver(vk, e, req))
        rest(vk, e);
}

/* ---- commands ----------------------------------------------------------------------------------- */

static bool every_queue_has_one(const struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++)
        if (mf__vk_list_empty(&vk->queues[i].idle) && mf__vk_list_empty(&vk->queues[i].busy))
            return false;
    return true;
}

static int check_entry(const struct mf_vkernel *vk, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd)
{
    const struct iovec *iov = (const void *)(uintptr_t)sqe->addr;

    if (cmd->qid >= vk->opts.queues || sqe->len != 2 || !iov)
        return -EINVAL;
    if (iov[0].iov_len < sizeof(struct fuse_uring_req_header))
        return -EINVAL;
    if (iov[1].iov_len == 0 && vk->queues[cmd->qid].pool)
        return 0;
    return iov[1].iov_len < vk->max_payload ? -EINVAL : 0;
}

static int register_entry(struct mf__vk_uring *u, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd,
                          struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    const struct iovec *iov = (const void *)(uintptr_t)sqe->addr;
    struct mf__vk_entry *e;
    int rc = check_entry(vk, sqe, cmd);

    if (rc < 0)
        return rc;
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    mf__vk_list_init(&e->at);
    e->queue = &vk->queues[cmd->qid];
    e->ring = u;
    e->task = task;
    atomic_fetch_add(&task->refs, 1);
    e->user_data = sqe->user_data;
    e->head = iov[0].iov_base;
    e->payload = iov[1].iov_len ? iov[1].iov_base : NULL;
    /* A fresh entry does not look at what waits: that has to be brought in by a commit. */
    mf__vk_list_add(&e->at, e->queue->idle.next);
    if (!vk->uring_ready && every_queue_has_one(vk)) {
        vk->uring_ready = true;
        mf__vk_wake_clients(vk);
    }
    return 0;
}

static int add_pool(struct mf_vkernel *vk, const struct mf__sqe *sqe)
{
    struct mf__fuse_bufpool in;
    struct mf__vk_queue *q;

    memcpy(&in, sqe->cmd, sizeof(in));
    if (vk->opts.minor < 46 || in.queue >= vk->opts.queues)
        return -EINVAL;
    q = &vk->queues[in.queue];
    if (q->pool || !mf__vk_list_empty(&q->idle) || in.length < vk->max_payload)
        return -EINVAL;
    q->pool = (void *)(uintptr_t)in.address;
    q->pieces = in.length / vk->max_payload;
    if (q->pieces > MAX_PIECES)
        q->pieces = MAX_PIECES;
    return 1;
}

static struct mf__vk_entry *busy_with(struct mf__vk_queue *q, uint64_t unique)
{
    for (struct mf__vk_link *l = q->busy.next; l != &q->busy; l = l->next) {
        struct mf__vk_entry *e = MF__VK_OF(l, struct mf__vk_entry, at);

        if (e->req && mf__vk_header(e->req->msg)->unique == unique)
            return e;
    }
    return NULL;
}

/* What a bad answer brings its caller; 0: it is a good one. */
static int fault_in(const struct mf__vk_req *req, const struct fuse_out_header *hdr, uint32_t body, uint32_t max)
{
    if (hdr->unique == 0 || hdr->error > 0 || hdr->error <= -WORST_ERROR)
        return -EINVAL;
    if (hdr->unique != mf__vk_header(req->msg)->unique)
        return -ENOENT;
    if (hdr->error)
        return body ? -EIO : 0;
    if (body > max)
        return -EFAULT;
    return body < req->out_least || body > req->out_most ? -EINVAL : 0;
}

static int commit_entry(struct mf__vk_uring *u, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd,
                        struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    struct mf__vk_entry *e = NULL;
    struct fuse_out_header hdr;
    struct iovec iov[2];
    uint32_t body;
    int fault;

    if (cmd->qid >= vk->opts.queues)
        return -EINVAL;
    e = busy_with(&vk->queues[cmd->qid], cmd->commit_id);
    if (!e)
        return -ENOENT;
    memcpy(&hdr, e->head->in_out, sizeof(hdr));
    body = e->head->ring_ent_in_out.payload_sz;
    fault = fault_in(e->req, &hdr, body, vk->max_payload);
    iov[0] = (struct iovec){ .iov_base = &hdr, .iov_len = sizeof(hdr) };
    iov[1] = (struct iovec){ .iov_base = e->piece, .iov_len = body };
    if (fault) {
        vk->bad_replies++;
        mf__vk_finish(vk, e->req, fault);
    } else {
        mf__vk_answer(vk, e->req, iov, 2, body, hdr.error);
    }
    give_piece(vk, e);
    /* The entry is now with whoever committed. */
    atomic_fetch_add(&task->refs, 1);
    mf__vk_task_put(e->task);
    e->task = task;
    e->ring = u;
    e->user_data = sqe->user_data;
    rest(vk, e);
    return 0;
}

int mf__vk_planned_fault(struct mf_vkernel *vk, uint32_t op)
{
    struct mf__vk_fault *f = &vk->fault;

    if (f->op != op || !f->count)
        return 0;
    if (f->skip) {
        f->skip--;
        return 0;
    }
    f->count--;
    return f->error;
}

static void register_failed(struct mf_vkernel *vk)
{
    vk->uring_wanted = false; /* those who wait go to the device */
    mf__vk_wake_clients(vk);
}

/* Less than 0: an error; 0: it completes later; more: it is done. */
static int fuse_command(struct mf__vk_uring *u, const struct mf__sqe *sqe, struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    struct fuse_uring_cmd_req cmd;
    int rc;

    if (!(u->flags & MF__URING_SETUP_SQE128))
        return -EINVAL;
    if (vk->opts.queues == 0)
        return -EOPNOTSUPP;
    if (vk->aborted)
        return -ECONNABORTED;
    if (!vk->connected)
        return -ENOTCONN;
    if (!vk->initialized)
        return -EAGAIN;
    memcpy(&cmd, sqe->cmd, sizeof(cmd));
    rc = mf__vk_planned_fault(vk, sqe->cmd_op);
    if (rc == -EAGAIN || rc == -EINTR || (rc && sqe->cmd_op != FUSE_IO_URING_CMD_REGISTER))
        return rc;
    switch (sqe->cmd_op) {
    case FUSE_IO_URING_CMD_REGISTER:
        if (rc == 0)
            rc = register_entry(u, sqe, &cmd, task);
        if (rc < 0)
            register_failed(vk);
        return rc;
    case FUSE_IO_URING_CMD_COMMIT_AND_FETCH: return commit_entry(u, sqe, &cmd, task);
    case MF__FUSE_ADD_BUFPOOL: return add_pool(vk, sqe);
    default: return -EINVAL;
    }
}

void mf__vk_command(struct mf__vk_uring *u, const struct mf__sqe *sqe, struct mf__vk_task *task)
{
    int rc = -EINVAL;

    if (sqe->opcode == MF__URING_OP_NOP)
        rc = 1;
    else if (sqe->opcode == MF__URING_OP_URING_CMD && (!(sqe->flags & MF__URING_FIXED_FILE) || sqe->fd || !u->file))
        rc = -EBADF;
    else if (sqe->opcode == MF__URING_OP_URING_CMD)
        rc = fuse_command(u, sqe, task);
    if (rc != 0)
        mf__vk_post_cqe(u, sqe->user_data, rc < 0 ? rc : 0);
}

/* ---- ends --------------------------------------------------------------------------------------- */

void mf__vk_drop_entries(struct mf__vk_uring *u)
{
    for (uint32_t i = 0; i < u->vk->opts.queues; i++) {
        struct mf__vk_queue *q = &u->vk->queues[i];
        struct mf__vk_link *l, *next;

        for (l = q->idle.next; l != &q->idle; l = next) {
            struct mf__vk_entry *e = MF__VK_OF(l, struct mf__vk_entry, at);

            next = l->next;
            if (e->ring == u)
                free_entry(e);
        }
        /* What is in the filesystem's hands can be committed elsewhere. */
        for (l = q->busy.next; l != &q->busy; l = l->next)
            if (MF__VK_OF(l, struct mf__vk_entry, at)->ring == u)
                MF__VK_OF(l, struct mf__vk_entry, at)->ring = NULL;
    }
}

static void end_queue(struct mf_vkernel *vk, struct mf__vk_queue *q)
{
    while (!mf__vk_list_empty(&q->pending))
        mf__vk_finish(vk, MF__VK_OF(q->pending.next, struct mf__vk_req, at), -ECONNABORTED);
    while (!mf__vk_list_empty(&q->busy)) {
        struct mf__vk_entry *e = MF__VK_OF(q->busy.next, struct mf__vk_entry, at);

        if (e->req)
            mf__vk_finish(vk, e->req, -ECONNABORTED);
        free_entry(e); /* its commit learns of the end */
    }
    while (!mf__vk_list_empty(&q->idle)) {
        struct mf__vk_entry *e = MF__VK_OF(q->idle.next, struct mf__vk_entry, at);

        mf__vk_post_cqe(e->ring, e->user_data, -ENOTCONN);
        free_entry(e);
    }
}

void mf__vk_uring_disconnect(struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++)
        end_queue(vk, &vk->queues[i]);
}
