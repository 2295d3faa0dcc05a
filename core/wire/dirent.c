/* SPDX-License-Identifier: MIT */
/* dirent.c - the records of READDIR and READDIRPLUS. */
#include "wire/wire.h"

#include <string.h>

/* The name at dst + head, zeros up to a multiple of 8. */
static int64_t finish(uint8_t *dst, uint64_t head, const char *name, uint64_t name_len, uint64_t total)
{
    memcpy(dst + head, name, name_len);
    memset(dst + head + name_len, 0, total - head - name_len);
    return (int64_t)total;
}

static struct fuse_dirent dirent(uint64_t name_len, uint64_t ino, uint32_t mode, uint64_t next)
{
    return (struct fuse_dirent){ .ino = ino, .off = next, .namelen = (uint32_t)name_len, .type = (mode >> 12) & 15 };
}

int64_t mf__put_dirent(void *dst, uint64_t room, const char *name, uint64_t name_len, uint64_t ino, uint32_t type,
                       uint64_t next)
{
    struct fuse_dirent out;
    uint64_t total;

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    total = mf__round_up(sizeof(out) + name_len, 8);
    if (total > room)
        return -ENOSPC;
    out = dirent(name_len, ino, type, next);
    memcpy(dst, &out, sizeof(out));
    return finish(dst, sizeof(out), name, name_len, total);
}

int64_t mf__put_direntplus(void *dst, uint64_t room, const char *name, uint64_t name_len, const struct mf_entry *e,
                           uint64_t next)
{
    struct fuse_direntplus out;
    uint64_t total;

    if (mf__check_name(name, name_len) < 0 || mf__check_entry(e, true) < 0)
        return -EINVAL;
    total = mf__round_up(sizeof(out) + name_len, 8);
    if (total > room)
        return -ENOSPC;
    mf__put_entry(&out.entry_out, e);
    out.dirent = dirent(name_len, out.entry_out.attr.ino, e->attr.mode, next);
    memcpy(dst, &out, sizeof(out));
    return finish(dst, sizeof(out), name, name_len, total);
}
