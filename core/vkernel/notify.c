/* SPDX-License-Identifier: MIT */
/* notify.c - what a write may be: notifications. Their sizes are checked, and they are counted. */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

#define HEADER sizeof(struct fuse_out_header)

/* What is exact or, where more follows, fixed; and the kernel's minor that knows the code. */
static const struct {
    uint32_t since;
    uint32_t size;
} codes[MF__VK_NOTIFY_CODES] = {
    [FUSE_NOTIFY_POLL] = { 11, sizeof(struct fuse_notify_poll_wakeup_out) },
    [FUSE_NOTIFY_INVAL_INODE] = { 12, sizeof(struct fuse_notify_inval_inode_out) },
    [FUSE_NOTIFY_INVAL_ENTRY] = { 12, sizeof(struct fuse_notify_inval_entry_out) },
    [FUSE_NOTIFY_STORE] = { 15, sizeof(struct fuse_notify_store_out) },
    [FUSE_NOTIFY_RETRIEVE] = { 15, sizeof(struct fuse_notify_retrieve_out) },
    [FUSE_NOTIFY_DELETE] = { 18, sizeof(struct fuse_notify_delete_out) },
    [FUSE_NOTIFY_RESEND] = { 40, 0 },
    [FUSE_NOTIFY_INC_EPOCH] = { 44, 0 },
    [FUSE_NOTIFY_PRUNE] = { 45, sizeof(struct fuse_notify_prune_out) },
};

static int check_name(const struct mf_vkernel *vk, uint64_t fixed, uint32_t name_len, uint64_t body)
{
    if (name_len > (vk->max_pages > 1 ? FUSE_NAME_MAX : 1024u))
        return -ENAMETOOLONG;
    return body == fixed + name_len + 1 ? 0 : -EINVAL;
}

/* The part that follows the fixed one. */
static int check_rest(const struct mf_vkernel *vk, uint32_t code, const uint8_t *fixed, uint64_t body)
{
    struct fuse_notify_inval_entry_out entry;
    struct fuse_notify_delete_out gone;
    struct fuse_notify_store_out store;
    struct fuse_notify_prune_out prune;

    switch (code) {
    case FUSE_NOTIFY_INVAL_ENTRY:
        memcpy(&entry, fixed, sizeof(entry));
        return check_name(vk, sizeof(entry), entry.namelen, body);
    case FUSE_NOTIFY_DELETE:
        memcpy(&gone, fixed, sizeof(gone));
        return check_name(vk, sizeof(gone), gone.namelen, body);
    case FUSE_NOTIFY_STORE:
        memcpy(&store, fixed, sizeof(store));
        return body == sizeof(store) + (uint64_t)store.size ? 0 : -EINVAL;
    case FUSE_NOTIFY_PRUNE:
        memcpy(&prune, fixed, sizeof(prune));
        return body == sizeof(prune) + 8 * (uint64_t)prune.count ? 0 : -EINVAL;
    default: return body == codes[code].size ? 0 : -EINVAL;
    }
}

/* Nothing is cached here, so what comes back is empty. */
static int retrieve(struct mf_vkernel *vk, const uint8_t *fixed)
{
    struct fuse_notify_retrieve_out out;
    struct fuse_notify_retrieve_in in = { .offset = 0 };
    struct iovec part = { .iov_base = &in, .iov_len = sizeof(in) };
    struct mf__vk_req *req;

    memcpy(&out, fixed, sizeof(out));
    in.offset = out.offset;
    req = mf__vk_req_new(NULL, FUSE_NOTIFY_REPLY, out.nodeid, &part, 1, 0);
    if (!req)
        return -ENOMEM;
    mf__vk_header(req->msg)->unique = out.notify_unique;
    mf__vk_enqueue(vk, req);
    return 0;
}

/* Everything in hand goes back to the head of the queue, in its order, marked as sent again. */
static void resend(struct mf_vkernel *vk)
{
    struct mf__vk_link *at = vk->pending.next;
    struct mf__vk_link *l;

    for (l = vk->chans.next; l != &vk->chans; l = l->next) {
        struct mf__vk_link *held = &MF__VK_OF(l, struct mf__vk_chan, all)->held;

        while (!mf__vk_list_empty(held)) {
            struct mf__vk_req *req = MF__VK_OF(held->next, struct mf__vk_req, at);

            mf__vk_header(req->msg)->unique |= FUSE_UNIQUE_RESEND;
            mf__vk_list_del(&req->at);
            mf__vk_list_add(&req->at, at);
            req->where = MF__VK_PENDING;
            req->holder = NULL;
            mf__vk_wake_reader(vk);
        }
    }
}

static int keep(struct mf_vkernel *vk, const struct iovec *iov, int n, size_t len)
{
    uint8_t *copy = malloc(len);

    if (!copy)
        return -ENOMEM;
    free(vk->notify);
    vk->notify = copy;
    vk->notify_len = mf__vk_gather(copy, 0, len, iov, n);
    return 0;
}

int mf__vk_notify(struct mf_vkernel *vk, int32_t code, const struct iovec *iov, int n)
{
    uint8_t fixed[32] = { 0 };
    size_t len = mf__vk_iov_len(iov, n);
    int rc;

    if (code <= 0 || code >= (int32_t)MF__VK_NOTIFY_CODES || codes[code].since == 0 ||
        vk->opts.minor < codes[code].since)
        return -EINVAL;
    if (mf__vk_gather(fixed, HEADER, codes[code].size, iov, n) < codes[code].size)
        return -EINVAL;
    rc = check_rest(vk, (uint32_t)code, fixed, len - HEADER);
    if (rc < 0)
        return rc;
    if (!vk->connected)
        return vk->unmounted ? -ENOENT : 0; /* an abort leaves the mount, an unmount nothing */
    rc = keep(vk, iov, n, len);
    if (rc == 0 && code == FUSE_NOTIFY_RETRIEVE)
        rc = retrieve(vk, fixed);
    if (rc < 0)
        return rc;
    if (code == FUSE_NOTIFY_RESEND)
        resend(vk);
    vk->notified[code]++;
    return 0;
}
