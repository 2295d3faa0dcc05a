/* SPDX-License-Identifier: MIT */
/*
 * encode.c - answers. The place of one need not be aligned: most are built on the stack and copied, those that hold
 * attributes written piece by piece where they belong, for to read again at once what was written in other pieces stalls.
 */
#include "wire/wire.h"

#include <string.h>

#define S_IFMT_BITS 0170000u

#define SAME(field) (offsetof(struct mf_attr, field) == offsetof(struct fuse_attr, field))
_Static_assert(sizeof(struct mf_attr) == sizeof(struct fuse_attr) && SAME(ino) && SAME(size) && SAME(blocks) &&
                   SAME(atime) && SAME(mtime) && SAME(ctime) && SAME(atimensec) && SAME(mtimensec) && SAME(ctimensec) &&
                   SAME(mode) && SAME(nlink) && SAME(uid) && SAME(gid) && SAME(rdev) && SAME(blksize) && SAME(flags),
               "attributes are copied as they are");

#define PUT(dst, out) (memcpy(dst, &(out), sizeof(out)), sizeof(out))

/* The same structures at any address. */
struct unaligned_entry {
    struct fuse_entry_out v;
} __attribute__((packed, may_alias));

struct unaligned_attr {
    struct fuse_attr_out v;
} __attribute__((packed, may_alias));

size_t mf__put_entry(void *dst, const struct mf_entry *e)
{
    struct unaligned_entry *out = dst;

    out->v.nodeid = e->node;
    out->v.generation = e->generation;
    out->v.entry_valid = e->entry_timeout_ns / MF_SECOND;
    out->v.entry_valid_nsec = (uint32_t)(e->entry_timeout_ns % MF_SECOND);
    out->v.attr_valid = e->attr_timeout_ns / MF_SECOND;
    out->v.attr_valid_nsec = (uint32_t)(e->attr_timeout_ns % MF_SECOND);
    memcpy((uint8_t *)dst + offsetof(struct fuse_entry_out, attr), &e->attr, sizeof(out->v.attr));
    if (e->attr.ino == 0)
        out->v.attr.ino = e->node;
    return sizeof(*out);
}

size_t mf__put_attr(void *dst, uint64_t timeout_ns, uint64_t node, const struct mf_attr *a)
{
    struct unaligned_attr *out = dst;

    out->v.attr_valid = timeout_ns / MF_SECOND;
    out->v.attr_valid_nsec = (uint32_t)(timeout_ns % MF_SECOND);
    out->v.dummy = 0;
    memcpy((uint8_t *)dst + offsetof(struct fuse_attr_out, attr), a, sizeof(out->v.attr));
    if (a->ino == 0)
        out->v.attr.ino = node;
    return sizeof(*out);
}

size_t mf__put_open(void *dst, uint64_t fh, uint32_t flags, int32_t backing_id)
{
    struct fuse_open_out out = { .fh = fh, .open_flags = flags, .backing_id = backing_id };

    return PUT(dst, out);
}

size_t mf__put_write(void *dst, uint32_t size)
{
    struct fuse_write_out out = { .size = size };

    return PUT(dst, out);
}

size_t mf__put_statfs(void *dst, const struct mf_statfs *st)
{
    struct fuse_statfs_out out = { 0 };

    out.st.blocks = st->blocks;
    out.st.bfree = st->bfree;
    out.st.bavail = st->bavail;
    out.st.files = st->files;
    out.st.ffree = st->ffree;
    out.st.bsize = st->bsize;
    out.st.namelen = st->namelen;
    out.st.frsize = st->frsize;
    return PUT(dst, out);
}

size_t mf__put_xattr_size(void *dst, uint32_t size)
{
    struct fuse_getxattr_out out = { .size = size };

    return PUT(dst, out);
}

size_t mf__put_lk(void *dst, const struct mf_lock *lk)
{
    struct fuse_lk_out out = { .lk = { .start = lk->start, .end = lk->end, .type = lk->type, .pid = lk->pid } };

    return PUT(dst, out);
}

size_t mf__put_lseek(void *dst, uint64_t offset)
{
    struct fuse_lseek_out out = { .offset = offset };

    return PUT(dst, out);
}

size_t mf__put_bmap(void *dst, uint64_t block)
{
    struct fuse_bmap_out out = { .block = block };

    return PUT(dst, out);
}

size_t mf__put_poll(void *dst, uint32_t revents)
{
    struct fuse_poll_out out = { .revents = revents };

    return PUT(dst, out);
}

size_t mf__put_copy64(void *dst, uint64_t bytes)
{
    struct fuse_copy_file_range_out out = { .bytes_copied = bytes };

    return PUT(dst, out);
}

size_t mf__put_ioctl(void *dst, int32_t result, uint32_t flags, uint32_t in_iovs, uint32_t out_iovs)
{
    struct fuse_ioctl_out out = { .result = result, .flags = flags, .in_iovs = in_iovs, .out_iovs = out_iovs };

    return PUT(dst, out);
}

size_t mf__put_statx(void *dst, uint64_t timeout_ns, const struct fuse_statx *sx)
{
    struct fuse_statx_out out = { .attr_valid = timeout_ns / MF_SECOND,
                                  .attr_valid_nsec = (uint32_t)(timeout_ns % MF_SECOND),
                                  .stat = *sx };

    return PUT(dst, out);
}

/* A kernel refuses an answer that is longer than the structure it knows. */
size_t mf__put_init(void *dst, const struct fuse_init_out *out, uint32_t kernel_minor)
{
    size_t size = sizeof(*out);

    if (kernel_minor < 5)
        size = FUSE_COMPAT_INIT_OUT_SIZE;
    else if (kernel_minor < 23)
        size = FUSE_COMPAT_22_INIT_OUT_SIZE;
    memcpy(dst, out, size);
    return size;
}

void mf__put_header(void *dst, size_t body_len, int error, uint64_t unique)
{
    struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + body_len), .error = error, .unique = unique };

    memcpy(dst, &out, sizeof(out));
}

/* ---- what the kernel would refuse --------------------------------------------------------------------- */

static bool valid_type(uint32_t mode)
{
    /* FIFO, character device, directory, block device, file, link, socket: 1 2 4 6 8 10 12 */
    const uint32_t valid = 1u << 1 | 1u << 2 | 1u << 4 | 1u << 6 | 1u << 8 | 1u << 10 | 1u << 12;

    return valid >> ((mode & S_IFMT_BITS) >> 12) & 1;
}

int mf__check_attr(const struct mf_attr *a)
{
    if (!valid_type(a->mode) || a->size > INT64_MAX)
        return -EINVAL;
    if (a->atimensec >= MF_SECOND || a->mtimensec >= MF_SECOND || a->ctimensec >= MF_SECOND)
        return -EINVAL;
    return 0;
}

/* The root is an answer to the lookup of "." and ".." only, whose names are not seen here. */
int mf__check_entry(const struct mf_entry *e, bool lookup)
{
    if (e->node == 0)
        return lookup ? 0 : -EINVAL;
    if (e->node == FUSE_ROOT_ID && (!lookup || e->generation != 0))
        return -EINVAL;
    return mf__check_attr(&e->attr);
}

int mf__check_name(const char *name, uint64_t len)
{
    if (len == 0 || len > FUSE_NAME_MAX || memchr(name, '/', len) || memchr(name, 0, len))
        return -EINVAL;
    return 0;
}
