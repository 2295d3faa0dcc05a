/* SPDX-License-Identifier: MIT */
/* notify.c - messages that nobody asked for: a reply header whose unique is 0 and whose error is the code. */
#include "wire/wire.h"

#include <string.h>

#define HEAD sizeof(struct fuse_out_header)

/* Header and fixed structure at dst, before `tail` bytes more. The length of both, or -ENOSPC, -EINVAL. */
static int64_t put_head(void *dst, size_t room, int code, const void *body, size_t size, uint64_t tail)
{
    if (tail > UINT32_MAX - HEAD - size)
        return -EINVAL;
    if (room < HEAD + size)
        return -ENOSPC;
    mf__put_header(dst, size + tail, code, 0);
    if (size > 0)
        memcpy((uint8_t *)dst + HEAD, body, size);
    return (int64_t)(HEAD + size);
}

/* The same, then the tail. */
static int64_t put(void *dst, size_t room, int code, const void *body, size_t size, const void *tail, uint64_t tail_len)
{
    int64_t n;

    if (tail_len > room)
        return -ENOSPC;
    n = put_head(dst, room - tail_len, code, body, size, tail_len);
    if (n < 0)
        return n;
    if (tail_len > 0)
        memcpy((uint8_t *)dst + n, tail, tail_len);
    return n + (int64_t)tail_len;
}

/* The same where the tail is a name and its NUL. */
static int64_t put_name(void *dst, size_t room, int code, const void *body, size_t size, const char *name, uint64_t len)
{
    int64_t n;

    if (room == 0)
        return -ENOSPC;
    n = put(dst, room - 1, code, body, size, name, len);
    if (n < 0)
        return n;
    ((uint8_t *)dst)[n] = 0;
    mf__put_header(dst, size + len + 1, code, 0);
    return n + 1;
}

int64_t mf__put_notify_inval_inode(void *dst, size_t room, uint64_t node, int64_t offset, int64_t length)
{
    struct fuse_notify_inval_inode_out out = { .ino = node, .off = offset, .len = length };

    return put(dst, room, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_inval_entry(void *dst, size_t room, uint64_t parent, const char *name, uint64_t name_len,
                                   uint32_t flags)
{
    struct fuse_notify_inval_entry_out out = { .parent = parent, .namelen = (uint32_t)name_len, .flags = flags };

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    return put_name(dst, room, FUSE_NOTIFY_INVAL_ENTRY, &out, sizeof(out), name, name_len);
}

int64_t mf__put_notify_delete(void *dst, size_t room, uint64_t parent, uint64_t child, const char *name,
                              uint64_t name_len)
{
    struct fuse_notify_delete_out out = { .parent = parent, .child = child, .namelen = (uint32_t)name_len };

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    return put_name(dst, room, FUSE_NOTIFY_DELETE, &out, sizeof(out), name, name_len);
}

int64_t mf__put_notify_poll(void *dst, size_t room, uint64_t kh)
{
    struct fuse_notify_poll_wakeup_out out = { .kh = kh };

    return put(dst, room, FUSE_NOTIFY_POLL, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_store_head(void *dst, size_t room, uint64_t node, uint64_t offset, uint32_t size)
{
    struct fuse_notify_store_out out = { .nodeid = node, .offset = offset, .size = size };

    return put_head(dst, room, FUSE_NOTIFY_STORE, &out, sizeof(out), size);
}

int64_t mf__put_notify_retrieve(void *dst, size_t room, uint64_t unique, uint64_t node, uint64_t offset, uint32_t size)
{
    struct fuse_notify_retrieve_out out = { .notify_unique = unique, .nodeid = node, .offset = offset, .size = size };

    return put(dst, room, FUSE_NOTIFY_RETRIEVE, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_prune(void *dst, size_t room, const uint64_t *nodes, uint32_t count)
{
    struct fuse_notify_prune_out out = { .count = count };

    return put(dst, room, FUSE_NOTIFY_PRUNE, &out, sizeof(out), nodes, count * (uint64_t)sizeof(*nodes));
}

int64_t mf__put_notify_plain(void *dst, size_t room, int32_t code)
{
    if (code != FUSE_NOTIFY_RESEND && code != FUSE_NOTIFY_INC_EPOCH)
        return -EINVAL;
    return put(dst, room, code, NULL, 0, NULL, 0);
}
