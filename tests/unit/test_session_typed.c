/* SPDX-License-Identifier: MIT */
/* The typed operations: each reaches its handler with the arguments that the message holds. */
#include <stdio.h>
#include <string.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"
#include "wire_message.h"

/* What a handler was called with, in the order of its parameters. */
static struct {
    uint32_t op;
    uint64_t args[8];
    char text[2][64];
    void *user;
    unsigned calls;
    _Atomic unsigned destroyed, started, ended;
} last;

static void note(struct mf_req *req, uint32_t op, void *user)
{
    memset(last.args, 0, sizeof(last.args));
    memset(last.text, 0, sizeof(last.text));
    last.op = op;
    last.user = user;
    last.calls++;
    if (op != MF_OP_FORGET)
        mf_reply_err(req, EDOM);
}

#define NOTE(op) note(req, MF_OP_##op, user)
#define TEXT(n, value) snprintf(last.text[n], sizeof(last.text[n]), "%s", value)
#define ARG(n, value) (last.args[n] = (uint64_t)(value))

static void on_lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    char copy[64];

    snprintf(copy, sizeof(copy), "%s", name); /* it dies with the answer */
    NOTE(LOOKUP), ARG(0, parent), TEXT(0, copy);
}

static void on_forget(struct mf_req *req, const struct mf_forget *items, uint64_t count, void *user)
{
    NOTE(FORGET), ARG(0, items[0].node), ARG(1, items[0].nlookup), ARG(2, count);
}

static void on_getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    NOTE(GETATTR), ARG(0, node), ARG(1, fh);
}

static void on_setattr(struct mf_req *req, uint64_t node, const struct mf_setattr_in *in, void *user)
{
    NOTE(SETATTR), ARG(0, node), ARG(1, in->fh), ARG(2, in->valid), ARG(3, in->attr.size), ARG(4, in->attr.mode),
        ARG(5, in->attr.uid), ARG(6, in->lock_owner);
}

static void on_readlink(struct mf_req *req, uint64_t node, void *user)
{
    NOTE(READLINK), ARG(0, node);
}

static void on_symlink(struct mf_req *req, uint64_t parent, const char *name, const char *target, void *user)
{
    NOTE(SYMLINK), ARG(0, parent), TEXT(0, name), TEXT(1, target);
}

static void on_mknod(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev, void *user)
{
    NOTE(MKNOD), ARG(0, parent), TEXT(0, name), ARG(1, mode), ARG(2, rdev);
}

static void on_mkdir(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, void *user)
{
    NOTE(MKDIR), ARG(0, parent), TEXT(0, name), ARG(1, mode);
}

static void on_unlink(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    NOTE(UNLINK), ARG(0, parent), TEXT(0, name);
}

static void on_rmdir(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    NOTE(RMDIR), ARG(0, parent), TEXT(0, name);
}

static void on_rename(struct mf_req *req, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
                      uint32_t flags, void *user)
{
    NOTE(RENAME), ARG(0, parent), TEXT(0, name), ARG(1, newparent), TEXT(1, newname), ARG(2, flags);
}

static void on_link(struct mf_req *req, uint64_t node, uint64_t newparent, const char *newname, void *user)
{
    NOTE(LINK), ARG(0, node), ARG(1, newparent), TEXT(1, newname);
}

static void on_open(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    NOTE(OPEN), ARG(0, node), ARG(1, flags);
}

static void on_create(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t flags, void *user)
{
    NOTE(CREATE), ARG(0, parent), TEXT(0, name), ARG(1, mode), ARG(2, flags);
}

static void note_read(const struct mf_read_in *in, uint64_t node)
{
    ARG(0, node), ARG(1, in->fh), ARG(2, in->offset), ARG(3, in->length), ARG(4, in->lock_owner), ARG(5, in->flags),
        ARG(6, in->read_flags);
}

static void on_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    NOTE(READ), note_read(in, node);
}

static void on_write(struct mf_req *req, uint64_t node, const struct mf_write_in *in, void *user)
{
    char copy[48];

    memcpy(copy, in->data, sizeof(copy));
    NOTE(WRITE), ARG(0, node), ARG(1, in->fh), ARG(2, in->offset), ARG(3, in->length), ARG(4, in->lock_owner),
        ARG(5, in->flags), ARG(6, in->write_flags), TEXT(0, copy);
}

static void on_flush(struct mf_req *req, uint64_t node, uint64_t fh, uint64_t lock_owner, void *user)
{
    NOTE(FLUSH), ARG(0, node), ARG(1, fh), ARG(2, lock_owner);
}

static void note_release(const struct mf_release_in *in, uint64_t node)
{
    ARG(0, node), ARG(1, in->fh), ARG(2, in->lock_owner), ARG(3, in->flags), ARG(4, in->release_flags);
}

static void on_release(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user)
{
    NOTE(RELEASE), note_release(in, node);
}

static void on_fsync(struct mf_req *req, uint64_t node, uint64_t fh, uint32_t datasync, void *user)
{
    NOTE(FSYNC), ARG(0, node), ARG(1, fh), ARG(2, datasync);
}

static void on_opendir(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    NOTE(OPENDIR), ARG(0, node), ARG(1, flags);
}

static void on_readdir(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    NOTE(READDIR), note_read(in, node);
}

static void on_releasedir(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user)
{
    NOTE(RELEASEDIR), note_release(in, node);
}

static void on_fsyncdir(struct mf_req *req, uint64_t node, uint64_t fh, uint32_t datasync, void *user)
{
    NOTE(FSYNCDIR), ARG(0, node), ARG(1, fh), ARG(2, datasync);
}

static void on_statfs(struct mf_req *req, uint64_t node, void *user)
{
    NOTE(STATFS), ARG(0, node);
}

static void on_access(struct mf_req *req, uint64_t node, uint32_t mask, void *user)
{
    NOTE(ACCESS), ARG(0, node), ARG(1, mask);
}

static void on_setxattr(struct mf_req *req, uint64_t node, const char *name, const void *value, uint64_t length,
                        uint32_t flags, void *user)
{
    char copy[48];

    memcpy(copy, value, sizeof(copy));
    NOTE(SETXATTR), ARG(0, node), TEXT(0, name), TEXT(1, copy), ARG(1, length), ARG(2, flags);
}

static void on_getxattr(struct mf_req *req, uint64_t node, const char *name, uint64_t length, void *user)
{
    NOTE(GETXATTR), ARG(0, node), TEXT(0, name), ARG(1, length);
}

static void on_listxattr(struct mf_req *req, uint64_t node, uint64_t length, void *user)
{
    NOTE(LISTXATTR), ARG(0, node), ARG(1, length);
}

static void on_removexattr(struct mf_req *req, uint64_t node, const char *name, void *user)
{
    NOTE(REMOVEXATTR), ARG(0, node), TEXT(0, name);
}

static void on_destroy(void *user)
{
    (void)user;
    last.destroyed++;
}

static void on_start(struct mf_session *s, uint32_t reader, void *user)
{
    (void)s;
    (void)reader;
    (void)user;
    last.started++;
}

static void on_end(struct mf_session *s, uint32_t reader, void *user)
{
    (void)s;
    (void)reader;
    (void)user;
    last.ended++;
}

static const struct mf_ops all = {
    .size = sizeof(all),
    .destroy = on_destroy,
    .reader_start = on_start,
    .reader_end = on_end,
    .lookup = on_lookup,
    .forget = on_forget,
    .getattr = on_getattr,
    .setattr = on_setattr,
    .readlink = on_readlink,
    .symlink = on_symlink,
    .mknod = on_mknod,
    .mkdir = on_mkdir,
    .unlink = on_unlink,
    .rmdir = on_rmdir,
    .rename = on_rename,
    .link = on_link,
    .open = on_open,
    .create = on_create,
    .read = on_read,
    .write = on_write,
    .flush = on_flush,
    .release = on_release,
    .fsync = on_fsync,
    .opendir = on_opendir,
    .readdir = on_readdir,
    .releasedir = on_releasedir,
    .fsyncdir = on_fsyncdir,
    .statfs = on_statfs,
    .access = on_access,
    .setxattr = on_setxattr,
    .getxattr = on_getxattr,
    .listxattr = on_listxattr,
    .removexattr = on_removexattr,
};

/* ---- a session of one step at a time --------------------------------------------------------------------- */

static struct fs_rig rig;
static int user;

static void begin(const struct mf_ops *ops)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 1, .want = FUSE_SETXATTR_EXT };

    fs_init(&rig);
    cr_assert_eq(mf_vkernel_new(NULL, &rig.vk), 0);
    cr_assert_eq(mf_session_new(ops, &user, &o, &rig.s, NULL), 0);
    cr_assert_eq(mf_session_attach_vkernel(rig.s, rig.vk, NULL), 0);
    cr_assert_eq(mf__crews_make(rig.s), 0);
    rig.s->phase = MF__RUNNING;
}

static void end(void)
{
    mf_session_free(rig.s);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 0);
    mf_vkernel_free(rig.vk);
}

/* The arguments as the record has them, in the order of the handler's parameters. */
static void arguments(const struct mf_call *c, uint64_t args[8])
{
    const struct mf_forget *f = c->data;

    memset(args, 0, 8 * sizeof(*args));
    args[0] = c->node;
    switch (c->op) {
    case MF_OP_FORGET: args[0] = f->node, args[1] = f->nlookup, args[2] = c->length; break;
    case MF_OP_GETATTR: args[1] = c->fh; break;
    case MF_OP_SETATTR:
        args[1] = c->fh, args[2] = c->valid, args[3] = c->attr.size, args[4] = c->attr.mode;
        args[5] = c->attr.uid, args[6] = c->lock_owner;
        break;
    case MF_OP_MKNOD: args[1] = c->mode, args[2] = c->rdev; break;
    case MF_OP_MKDIR: args[1] = c->mode; break;
    case MF_OP_RENAME: args[1] = c->node2, args[2] = c->flags; break;
    case MF_OP_LINK: args[1] = c->node2; break;
    case MF_OP_OPEN:
    case MF_OP_OPENDIR:
    case MF_OP_ACCESS: args[1] = c->flags; break;
    case MF_OP_CREATE: args[1] = c->mode, args[2] = c->flags; break;
    case MF_OP_READ:
    case MF_OP_READDIR:
    case MF_OP_WRITE:
        args[1] = c->fh, args[2] = c->offset, args[3] = c->length, args[4] = c->lock_owner, args[5] = c->flags;
        args[6] = c->op_flags;
        break;
    case MF_OP_FLUSH: args[1] = c->fh, args[2] = c->lock_owner; break;
    case MF_OP_RELEASE:
    case MF_OP_RELEASEDIR: args[1] = c->fh, args[2] = c->lock_owner, args[3] = c->flags, args[4] = c->op_flags; break;
    case MF_OP_FSYNC:
    case MF_OP_FSYNCDIR: args[1] = c->fh, args[2] = c->flags & 1; break;
    case MF_OP_SETXATTR: args[1] = c->length, args[2] = c->flags; break;
    case MF_OP_GETXATTR:
    case MF_OP_LISTXATTR: args[1] = c->length; break;
    default: break;
    }
}

Test(session_typed, each_operation_reaches_its_handler, .timeout = 30)
{
    static struct wire w;
    unsigned reached = 0;

    begin(&all);
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);
        struct mf_forget one;
        struct mf_call call;
        struct mf__msg msg;
        uint64_t args[8], id;

        if (!row->slot || (row->props & MF__OPC_LATER))
            continue;
        wire_sample(&w, opcode);
        cr_assert_eq(mf__msg_split(&msg, w.bytes, w.len), 0);
        cr_assert_eq(mf__decode(&msg, FUSE_SETXATTR_EXT, &call, &one), 0);
        arguments(&call, args);
        id = fs_send(&rig, opcode, WIRE_NODE, w.bytes + 40, w.len - 40);
        fs_step(&rig, 0);
        if (row->reply != MF__REPLY_NEVER)
            cr_expect_eq(fs_wait(&rig, id), -EDOM, "%s", row->name);
        cr_expect_eq(last.op, row->slot, "%s went to operation %u", row->name, last.op);
        cr_expect_eq(last.user, &user);
        cr_expect_arr_eq(last.args, args, sizeof(args), "%s: other arguments", row->name);
        if (call.name)
            cr_expect_str_eq(last.text[0], "first", "%s", row->name);
        if (call.name2)
            cr_expect_str_eq(last.text[1], call.name2, "%s", row->name);
        if (opcode == FUSE_WRITE)
            cr_expect(strstr(last.text[0], "forty-eight"));
        if (opcode == FUSE_SETXATTR)
            cr_expect(strstr(last.text[1], "forty-eight"));
        reached++;
        cr_expect_eq(last.calls, reached);
    }
    cr_expect_eq(reached, 31, "%u operations", reached); /* RENAME2 and BATCH_FORGET share a handler with another */
    end();
    cr_expect_eq(last.destroyed, 1);
}

/* Every operation alone: the set of those that exist says so, and no other is called. */
Test(session_typed, what_is_missing_is_enosys, .timeout = 30)
{
    static struct wire w;
    struct mf_ops ops = { .size = sizeof(ops), .getattr = on_getattr };

    begin(&ops);
    cr_expect_eq(rig.s->implemented, 1ull << MF_OP_GETATTR);
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);
        uint64_t id;
        int want = -ENOSYS;

        if (!row->slot || row->reply == MF__REPLY_NEVER)
            continue;
        if (opcode == FUSE_GETATTR)
            want = -EDOM;
        else if (row->props & MF__OPC_ALWAYS)
            want = 0;
        wire_sample(&w, opcode);
        id = fs_send(&rig, opcode, WIRE_NODE, w.bytes + 40, w.len - 40);
        fs_step(&rig, 0);
        cr_expect_eq(fs_wait(&rig, id), want, "%s", row->name);
    }
    cr_expect_eq(last.calls, 1);
    end();
}

Test(session_typed, hooks, .timeout = 30)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 3 };
    struct mf_vkernel *vk;
    struct mf_session *s;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    cr_assert_eq(mf_session_new(&all, &user, &o, &s, NULL), 0);
    cr_assert_eq(mf_session_attach_vkernel(s, vk, NULL), 0);
    cr_assert_eq(mf_session_start(s), 0);
    cr_expect_eq(mf_client_getattr(vk, 1, &(struct mf_attr){ 0 }), -EDOM);
    cr_expect_eq(mf_session_finish(s), 0);
    cr_expect_eq(last.started, 3);
    cr_expect_eq(last.ended, 3);
    cr_expect_eq(last.destroyed, 1);
    cr_expect_eq(last.user, &user);
    mf_session_free(s);
    cr_expect_eq(last.destroyed, 1);
    mf_vkernel_free(vk);
}
