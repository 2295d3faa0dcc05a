/* SPDX-License-Identifier: MIT */
/* typed.c - the typed C operations behind the one upcall: which exist, and their arguments. */
#include "session/session.h"

typedef void read_fn(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user);
typedef void release_fn(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user);

static void call_read(read_fn *fn, const struct mf_call *c, void *user)
{
    struct mf_read_in in = { .fh = c->fh,
                             .offset = c->offset,
                             .length = c->length,
                             .lock_owner = c->lock_owner,
                             .flags = c->flags,
                             .read_flags = c->op_flags };

    fn(c->req, c->node, &in, user);
}

static void call_release(release_fn *fn, const struct mf_call *c, void *user)
{
    struct mf_release_in in = {
        .fh = c->fh, .lock_owner = c->lock_owner, .flags = c->flags, .release_flags = c->op_flags
    };

    fn(c->req, c->node, &in, user);
}

static void call_write(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    struct mf_write_in in = { .fh = c->fh,
                              .offset = c->offset,
                              .length = c->length,
                              .lock_owner = c->lock_owner,
                              .data = c->data,
                              .flags = c->flags,
                              .write_flags = c->op_flags };

    ops->write(c->req, c->node, &in, user);
}

static void call_setattr(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    struct mf_setattr_in in = { .fh = c->fh, .lock_owner = c->lock_owner, .valid = c->valid, .attr = c->attr };

    ops->setattr(c->req, c->node, &in, user);
}

/* On names, beside LOOKUP. */
static void call_name(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    switch (c->op) {
    case MF_OP_SYMLINK: ops->symlink(c->req, c->node, c->name, c->name2, user); break;
    case MF_OP_MKNOD: ops->mknod(c->req, c->node, c->name, c->mode, c->rdev, user); break;
    case MF_OP_MKDIR: ops->mkdir(c->req, c->node, c->name, c->mode, user); break;
    case MF_OP_UNLINK: ops->unlink(c->req, c->node, c->name, user); break;
    case MF_OP_RMDIR: ops->rmdir(c->req, c->node, c->name, user); break;
    case MF_OP_RENAME: ops->rename(c->req, c->node, c->name, c->node2, c->name2, c->flags, user); break;
    case MF_OP_LINK: ops->link(c->req, c->node, c->node2, c->name2, user); break;
    case MF_OP_CREATE: ops->create(c->req, c->node, c->name, c->mode, c->flags, user); break;
    case MF_OP_SETXATTR: ops->setxattr(c->req, c->node, c->name, c->data, c->length, c->flags, user); break;
    case MF_OP_GETXATTR: ops->getxattr(c->req, c->node, c->name, c->length, user); break;
    case MF_OP_REMOVEXATTR: ops->removexattr(c->req, c->node, c->name, user); break;
    default: break;
    }
}

/* What is seldom asked for, apart so that the rest stays small. */
static void call_rest(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    switch (c->op) {
    case MF_OP_FORGET: ops->forget(c->req, c->data, c->length, user); break;
    case MF_OP_SETATTR: call_setattr(ops, c, user); break;
    case MF_OP_READLINK: ops->readlink(c->req, c->node, user); break;
    case MF_OP_STATFS: ops->statfs(c->req, c->node, user); break;
    case MF_OP_ACCESS: ops->access(c->req, c->node, c->flags, user); break;
    case MF_OP_LISTXATTR: ops->listxattr(c->req, c->node, c->length, user); break;
    case MF_OP_FSYNC: ops->fsync(c->req, c->node, c->fh, c->flags & 1, user); break;
    case MF_OP_OPENDIR: ops->opendir(c->req, c->node, c->flags, user); break;
    case MF_OP_READDIR: call_read(ops->readdir, c, user); break;
    case MF_OP_RELEASEDIR: call_release(ops->releasedir, c, user); break;
    case MF_OP_FSYNCDIR: ops->fsyncdir(c->req, c->node, c->fh, c->flags & 1, user); break;
    default: call_name(ops, c, user); break;
    }
}

int32_t mf__typed_upcall(struct mf_call *c, void *user)
{
    const struct mf_ops *ops = &c->session->typed;

    switch (c->op) {
    case MF_OP_LOOKUP: ops->lookup(c->req, c->node, c->name, user); break;
    case MF_OP_GETATTR: ops->getattr(c->req, c->node, c->fh, user); break;
    case MF_OP_OPEN: ops->open(c->req, c->node, c->flags, user); break;
    case MF_OP_READ: call_read(ops->read, c, user); break;
    case MF_OP_WRITE: call_write(ops, c, user); break;
    case MF_OP_FLUSH: ops->flush(c->req, c->node, c->fh, c->lock_owner, user); break;
    case MF_OP_RELEASE: call_release(ops->release, c, user); break;
    default: call_rest(ops, c, user); break;
    }
    return MF_ANSWERED;
}

#define BIT(op, handler) ((uint64_t)((handler) != NULL) << (op))

uint64_t mf__typed_mask(const struct mf_ops *o)
{
    return BIT(MF_OP_LOOKUP, o->lookup) | BIT(MF_OP_FORGET, o->forget) | BIT(MF_OP_GETATTR, o->getattr) |
           BIT(MF_OP_SETATTR, o->setattr) | BIT(MF_OP_READLINK, o->readlink) | BIT(MF_OP_SYMLINK, o->symlink) |
           BIT(MF_OP_MKNOD, o->mknod) | BIT(MF_OP_MKDIR, o->mkdir) | BIT(MF_OP_UNLINK, o->unlink) |
           BIT(MF_OP_RMDIR, o->rmdir) | BIT(MF_OP_RENAME, o->rename) | BIT(MF_OP_LINK, o->link) |
           BIT(MF_OP_OPEN, o->open) | BIT(MF_OP_CREATE, o->create) | BIT(MF_OP_READ, o->read) |
           BIT(MF_OP_WRITE, o->write) | BIT(MF_OP_FLUSH, o->flush) | BIT(MF_OP_RELEASE, o->release) |
           BIT(MF_OP_FSYNC, o->fsync) | BIT(MF_OP_OPENDIR, o->opendir) | BIT(MF_OP_READDIR, o->readdir) |
           BIT(MF_OP_RELEASEDIR, o->releasedir) | BIT(MF_OP_FSYNCDIR, o->fsyncdir) | BIT(MF_OP_STATFS, o->statfs) |
           BIT(MF_OP_ACCESS, o->access) | BIT(MF_OP_SETXATTR, o->setxattr) | BIT(MF_OP_GETXATTR, o->getxattr) |
           BIT(MF_OP_LISTXATTR, o->listxattr) | BIT(MF_OP_REMOVEXATTR, o->removexattr);
}
