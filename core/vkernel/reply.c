/* SPDX-License-Identifier: MIT */
/* reply.c - what a write may be: answers to requests and to INTERRUPTs. Nothing here waits. */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

#define HEADER sizeof(struct fuse_out_header)
#define WORST_ERROR 512 /* the first that is none */

size_t mf__vk_iov_len(const struct iovec *iov, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > SIZE_MAX - sum)
            return SIZE_MAX;
        sum += iov[i].iov_len;
    }
    return sum;
}

size_t mf__vk_gather(void *dst, size_t skip, size_t len, const struct iovec *iov, int n)
{
    uint8_t *at = dst;

    for (int i = 0; i < n && len > 0; i++) {
        const uint8_t *from = iov[i].iov_base;
        size_t part = iov[i].iov_len;

        if (part <= skip) {
            skip -= part;
            continue;
        }
        part -= skip;
        if (part > len)
            part = len;
        memcpy(at, from + skip, part);
        skip = 0;
        at += part;
        len -= part;
    }
    return (size_t)(at - (uint8_t *)dst);
}

/* ---- INIT --------------------------------------------------------------------------------------- */

/* The terms become those of the answer; false: no such terms. */
static bool adopt(struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    struct fuse_init_out out = { .major = 0 };

    if (req->out_len > 0)
        memcpy(&out, req->out, req->out_len);
    if (out.major != FUSE_KERNEL_VERSION)
        return false;
    vk->minor = out.minor;
    vk->flags = out.flags;
    if (out.flags & vk->opts.flags & FUSE_INIT_EXT)
        vk->flags |= (uint64_t)out.flags2 << 32;
    vk->flags &= vk->opts.flags;
    vk->max_write = out.minor < 5 || out.max_write < MF__VK_PAGE ? MF__VK_PAGE : out.max_write;
    if (vk->flags & FUSE_MAX_PAGES) {
        vk->max_pages = out.max_pages < MF__VK_MAX_PAGES ? out.max_pages : MF__VK_MAX_PAGES;
        if (vk->max_pages == 0)
            vk->max_pages = 1;
    }
    mf__vk_uring_agreed(vk);
    return true;
}

/* ---- answers that nobody collects --------------------------------------------------------------- */

/* The program is gone, but what it was given must be given back, or the filesystem keeps it for ever. */
static void give_back(struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    bool opens = req->opcode == FUSE_OPEN || req->opcode == FUSE_OPENDIR;
    bool creates = req->opcode == FUSE_CREATE || req->opcode == FUSE_TMPFILE;
    bool enters = creates || req->out_least == sizeof(struct fuse_entry_out);
    uint64_t node = mf__vk_header(req->msg)->nodeid;
    struct fuse_release_in in = { .fh = 0 };
    struct fuse_entry_out entry;
    struct fuse_open_out open;

    if (enters) {
        memcpy(&entry, req->out, sizeof(entry));
        node = entry.nodeid;
    }
    if (creates || opens) {
        memcpy(&open, req->out + (creates ? sizeof(entry) : 0), sizeof(open));
        in.fh = open.fh;
        mf__vk_post(vk, req->opcode == FUSE_OPENDIR ? FUSE_RELEASEDIR : FUSE_RELEASE, node, &in, sizeof(in));
    }
    if (enters && node != 0)
        mf__vk_queue_forget(vk, node, 1);
}

/* ---- writing ------------------------------------------------------------------------------------ */

static struct mf__vk_req *held(struct mf__vk_chan *ch, uint64_t unique)
{
    struct mf__vk_link *l;

    for (l = ch->held.next; l != &ch->held; l = l->next) {
        struct mf__vk_req *req = MF__VK_OF(l, struct mf__vk_req, at);

        if (mf__vk_header(req->msg)->unique == unique)
            return req;
    }
    return NULL;
}

static int answer_interrupt(struct mf__vk_chan *ch, struct mf__vk_req *req, size_t len, int error)
{
    struct mf_vkernel *vk = ch->vk;

    if (len != HEADER || (error == -EAGAIN && !req->interrupted)) {
        vk->bad_replies++;
        return -EINVAL;
    }
    if (error == -ENOSYS) {
        vk->no_interrupt = true;
    } else if (error == -EAGAIN && !vk->no_interrupt && mf__vk_list_empty(&req->intr)) {
        mf__vk_list_add(&req->intr, &vk->interrupts);
        mf__vk_wake_reader(vk);
    }
    return 0;
}

/* Takes the body over into the request. 0, or the error that its writer gets; *error is what the caller gets. */
static int take_body(struct mf__vk_req *req, const struct iovec *iov, int n, size_t body, int *error)
{
    if (*error ? body != 0 : body < req->out_least || body > req->out_most) {
        *error = -EIO;
        return -EINVAL;
    }
    if (body == 0)
        return 0;
    req->out = malloc(body);
    if (!req->out) {
        *error = -ENOMEM;
        return -ENOMEM;
    }
    req->out_len = (uint32_t)mf__vk_gather(req->out, HEADER, body, iov, n);
    return 0;
}

int mf__vk_answer(struct mf_vkernel *vk, struct mf__vk_req *req, const struct iovec *iov, int n, size_t body, int error)
{
    int rc = take_body(req, iov, n, body, &error);

    if (rc == -EINVAL)
        vk->bad_replies++;
    if (error == 0 && req->opcode == FUSE_INIT && !adopt(vk, req))
        error = -EPROTO;
    if (error == 0 && req->tidy && !req->owned)
        give_back(vk, req);
    mf__vk_finish(vk, req, error);
    return rc;
}

static int refuse(struct mf_vkernel *vk, int error)
{
    vk->bad_replies++;
    return error;
}

int mf__vk_write(struct mf__vk_chan *ch, const struct iovec *iov, int n)
{
    size_t len = mf__vk_iov_len(iov, n);
    struct mf_vkernel *vk = ch->vk;
    struct fuse_out_header hdr;
    struct mf__vk_req *req;

    if (len < HEADER)
        return refuse(vk, -EINVAL);
    mf__vk_gather(&hdr, 0, HEADER, iov, n);
    if (hdr.len != len)
        return refuse(vk, -EINVAL);
    if (hdr.unique == 0) {
        int rc = mf__vk_notify(vk, hdr.error, iov, n);

        return rc == -EINVAL ? refuse(vk, rc) : rc;
    }
    if (hdr.error > 0 || hdr.error <= -WORST_ERROR)
        return refuse(vk, -EINVAL);
    req = held(ch, hdr.unique & ~FUSE_INT_REQ_BIT);
    if (hdr.unique & FUSE_INT_REQ_BIT) {
        /* An answer that comes after its target's is nobody's fault. */
        return req ? answer_interrupt(ch, req, len, hdr.error) : -ENOENT;
    }
    if (!req)
        return vk->connected ? refuse(vk, -ENOENT) : -ENOENT; /* after the end every answer comes late */
    return mf__vk_answer(vk, req, iov, n, len - HEADER, hdr.error);
}
