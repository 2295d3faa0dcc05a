/* SPDX-License-Identifier: MIT */
/* node.c - single requests by node, their answers checked as the kernel checks them. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

_Static_assert(sizeof(struct mf_attr) == sizeof(struct fuse_attr), "attributes are copied as they are");

bool mf__vk_attr_ok(const struct fuse_attr *attr)
{
    switch (attr->mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK: return attr->size <= INT64_MAX;
    default: return false;
    }
}

uint64_t mf__vk_ns(uint64_t seconds, uint32_t ns)
{
    if (ns >= MF_SECOND)
        ns = MF_SECOND - 1;
    if (seconds > (UINT64_MAX - ns) / MF_SECOND)
        return UINT64_MAX;
    return seconds * MF_SECOND + ns;
}

int mf__vk_copy_out(void *dst, const void *src, uint32_t size)
{
    uint32_t room;

    if (!dst)
        return -EINVAL;
    memcpy(&room, dst, sizeof(room));
    if (room == 0 || room > size)
        room = size;
    if (room < sizeof(room))
        return -EINVAL;
    memcpy(dst, src, room);
    memcpy(dst, &room, sizeof(room));
    return 0;
}

int mf__vk_check_name(struct mf_vkernel *vk, const char *name)
{
    if (!name || !*name || strchr(name, '/'))
        return -EINVAL;
    return strlen(name) > mf__vk_max_name(vk) ? -ENAMETOOLONG : 0;
}

/* ---- looking ------------------------------------------------------------------------------------ */

int mf__vk_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct fuse_entry_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_LOOKUP, .node = parent, .out = out, .out_room = sizeof(*out) };
    int rc = mf__vk_ready(vk);

    memset(out, 0, sizeof(*out));
    if (rc == 0)
        rc = mf__vk_check_name(vk, name);
    if (rc < 0)
        return rc;
    mf__vk_add(&ask, name, strlen(name) + 1);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    if (out->nodeid == 0)
        return -ENOENT;
    return mf__vk_attr_ok(&out->attr) ? 0 : -EIO;
}

int mf__vk_getattr(struct mf_vkernel *vk, uint64_t node, const uint64_t *fh, struct fuse_attr_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_GETATTR, .node = node, .out = out, .out_room = sizeof(*out) };
    struct fuse_getattr_in in = { .getattr_flags = fh ? FUSE_GETATTR_FH : 0, .fh = fh ? *fh : 0 };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return mf__vk_attr_ok(&out->attr) ? 0 : -EIO;
}

int mf__vk_refresh(struct mf_vkernel *vk, struct mf__vk_node *node, const uint64_t *fh)
{
    struct fuse_attr_out out;
    int rc;

    if (node->attr_ns > 0)
        return 0;
    rc = mf__vk_getattr(vk, node->id, fh, &out);
    if (rc < 0)
        return rc;
    /* A node's type never changes. */
    if ((out.attr.mode ^ node->attr.mode) & S_IFMT)
        return -EIO;
    memcpy(&node->attr, &out.attr, sizeof(node->attr));
    return 0;
}

int mf__vk_readlink(struct mf_vkernel *vk, uint64_t node, char *target, uint64_t room, uint64_t *len)
{
    struct mf__vk_ask ask = { .opcode = FUSE_READLINK, .node = node, .out = target, .out_room = room };
    int rc = mf__vk_ask(vk, &ask);

    *len = ask.out_len;
    return rc;
}

void mf__vk_node_of(struct mf__vk_node *node, const struct fuse_entry_out *e)
{
    node->id = e->nodeid;
    node->attr_ns = mf__vk_ns(e->attr_valid, e->attr_valid_nsec);
    memcpy(&node->attr, &e->attr, sizeof(node->attr));
}

/* ---- making ------------------------------------------------------------------------------------- */

uint32_t mf__vk_masked(struct mf_vkernel *vk, uint32_t mode)
{
    return mf__vk_flags(vk) & FUSE_DONT_MASK ? mode : mode & ~MF__VK_UMASK;
}

void mf__vk_add_ext(struct mf_vkernel *vk, struct mf__vk_ask *ask)
{
    /* What a kernel without a security module sends: a list of no contexts. */
    static const struct fuse_secctx_header none = { .size = sizeof(none), .nr_secctx = 0 };

    if (!(mf__vk_flags(vk) & FUSE_SECURITY_CTX))
        return;
    mf__vk_add(ask, &none, sizeof(none));
    ask->ext_len = sizeof(none);
}

int mf__vk_make(struct mf_vkernel *vk, struct mf__vk_ask *ask, uint32_t mode, struct fuse_entry_out *out)
{
    int rc;

    ask->out = out;
    ask->out_room = sizeof(*out);
    rc = mf__vk_ask(vk, ask);
    if (rc < 0)
        return rc;
    if (out->nodeid == 0 || out->nodeid == FUSE_ROOT_ID || !mf__vk_attr_ok(&out->attr) ||
        ((out->attr.mode ^ mode) & S_IFMT) != 0)
        return -EIO;
    return 0;
}

int mf__vk_mknod(struct mf_vkernel *vk, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev,
                 struct fuse_entry_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_MKNOD, .node = parent };
    struct fuse_mknod_in in = { .mode = mf__vk_masked(vk, mode), .rdev = rdev, .umask = MF__VK_UMASK };

    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, name, strlen(name) + 1);
    mf__vk_add_ext(vk, &ask);
    return mf__vk_make(vk, &ask, mode, out);
}

/* ---- changing ----------------------------------------------------------------------------------- */

bool mf__vk_kills_priv(struct mf_vkernel *vk)
{
    return vk->opts.uid != 0 && (mf__vk_flags(vk) & FUSE_HANDLE_KILLPRIV_V2) != 0;
}

int mf__vk_setattr(struct mf_vkernel *vk, uint64_t node, const struct fuse_setattr_in *in)
{
    struct fuse_attr_out out;
    struct mf__vk_ask ask = { .opcode = FUSE_SETATTR, .node = node, .out = &out, .out_room = sizeof(out) };
    int rc;

    mf__vk_add(&ask, in, sizeof(*in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return mf__vk_attr_ok(&out.attr) ? 0 : -EIO;
}

int mf__vk_setsize(struct mf_vkernel *vk, uint64_t node, uint64_t length, bool opening)
{
    struct fuse_setattr_in in = { .valid = FATTR_SIZE | FATTR_LOCKOWNER,
                                  .size = length,
                                  .lock_owner = MF__VK_LOCK_OWNER };

    /* open(2) with O_TRUNC changes the times even where the size stays. */
    if (opening)
        in.valid |= FATTR_MTIME | FATTR_MTIME_NOW;
    if (mf__vk_kills_priv(vk))
        in.valid |= FATTR_KILL_SUIDGID;
    return mf__vk_setattr(vk, node, &in);
}

/* ---- the public calls --------------------------------------------------------------------------- */

int mf_client_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct mf_entry *out)
{
    struct fuse_entry_out e;
    struct mf_entry made = { .size = sizeof(made) };
    int rc = mf__vk_lookup(vk, parent, name, &e);
    int copied;

    made.node = e.nodeid;
    made.generation = e.generation;
    made.entry_timeout_ns = mf__vk_ns(e.entry_valid, e.entry_valid_nsec);
    made.attr_timeout_ns = mf__vk_ns(e.attr_valid, e.attr_valid_nsec);
    memcpy(&made.attr, &e.attr, sizeof(made.attr));
    copied = out ? mf__vk_copy_out(out, &made, sizeof(made)) : 0;
    return rc < 0 ? rc : copied;
}

int mf_client_getattr(struct mf_vkernel *vk, uint64_t node, struct mf_attr *out)
{
    struct fuse_attr_out got;
    int rc = mf__vk_getattr(vk, node, NULL, &got);

    if (rc == 0 && out)
        memcpy(out, &got.attr, sizeof(*out));
    return rc;
}
