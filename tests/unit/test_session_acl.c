/* SPDX-License-Identifier: MIT */
/* Whom a session answers, on every reader. */
#include <string.h>
#include <sys/stat.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"
#include "wire_message.h"

#define OWNER 1000u
#define OTHER 1001u

static struct fs_rig rig;

/* What a user gets from reader `reader` for an operation; the owner is OWNER. */
static int ask_as(uint32_t uid, uint32_t opcode, uint32_t reader)
{
    static struct wire w;
    uint64_t id;

    cr_assert(wire_sample(&w, opcode));
    rig.vk->opts.uid = uid;
    rig.vk->opts.pid = 1;
    id = fs_send(&rig, opcode, FS_FILE0, w.bytes + sizeof(struct fuse_in_header),
                 w.len - sizeof(struct fuse_in_header));
    fs_step(&rig, reader);
    return fs_wait(&rig, id);
}

static int32_t refuse_all(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    (void)r;
    return -EDOM; /* it was let in */
}

static void begin(uint32_t acl)
{
    fs_init(&rig);
    rig.implemented = UINT64_MAX;
    rig.opts.acl = acl;
    rig.opts.want = FUSE_SETXATTR_EXT;
    rig.script = refuse_all;
    fs_step_init(&rig, 3);
    rig.s->terms.acl = acl; /* that of a mount of our own: an attached one is narrowed only on demand */
    rig.s->terms.owner_uid = OWNER;
}

/* Opened files are usable by whoever holds them, and the kernel speaks for itself. */
static bool is_checked(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_FSYNC:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_IOCTL:
    case FUSE_POLL:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_SYNCFS: return false;
    default: return true;
    }
}

static void expect(uint32_t acl, uint32_t uid, bool may)
{
    begin(acl);
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);
        int rc, want = may || !is_checked(opcode) ? -EDOM : -EACCES;

        if (!row->slot || row->reply == MF__REPLY_NEVER)
            continue;
        for (uint32_t reader = 0; reader < 3; reader++) {
            rc = ask_as(uid, opcode, reader);
            cr_expect_eq(rc, want, "acl %u, uid %u, %s, reader %u: %d", acl, uid, row->name, reader, rc);
        }
    }
    fs_end(&rig);
}

Test(session_acl, owner, .timeout = 30)
{
    expect(MF_ACL_OWNER, OWNER, true);
    expect(MF_ACL_OWNER, 0, false);
    expect(MF_ACL_OWNER, OTHER, false);
}

Test(session_acl, root_and_owner, .timeout = 30)
{
    expect(MF_ACL_ROOT_AND_OWNER, OWNER, true);
    expect(MF_ACL_ROOT_AND_OWNER, 0, true);
    expect(MF_ACL_ROOT_AND_OWNER, OTHER, false);
}

Test(session_acl, all, .timeout = 30)
{
    expect(MF_ACL_ALL, OWNER, true);
    expect(MF_ACL_ALL, 0, true);
    expect(MF_ACL_ALL, OTHER, true);
}

Test(session_acl, the_kernels_flush_of_times_is_nobodys, .timeout = 30)
{
    struct fuse_setattr_in in = { .valid = FATTR_MTIME };
    uint64_t id;

    begin(MF_ACL_OWNER);
    rig.vk->opts.uid = 0;
    rig.vk->opts.pid = 0;
    id = fs_send(&rig, FUSE_SETATTR, FS_FILE0, &in, sizeof(in));
    fs_step(&rig, 0);
    cr_expect_eq(fs_wait(&rig, id), -EDOM);
    fs_end(&rig);
}

Test(session_acl, what_is_not_implemented_is_so_for_everybody, .timeout = 30)
{
    begin(MF_ACL_OWNER);
    rig.s->implemented = rig.s->terms.implemented = 0;
    cr_expect_eq(ask_as(OTHER, FUSE_GETXATTR, 0), -ENOSYS);
    fs_end(&rig);
}

static uint32_t settled_acl(const char *mount_options, uint32_t acl)
{
    struct mf_session_opts o = { .size = sizeof(o), .mount_options = mount_options, .acl = acl };
    struct mf_ops ops = { .size = sizeof(ops) };
    struct mf_session *s;
    uint32_t got;

    cr_assert_eq(mf_session_new(&ops, NULL, &o, &s, NULL), 0);
    got = s->opts.acl;
    cr_expect_eq(s->mount_opts.allow_other, got != MF_ACL_OWNER);
    mf_session_free(s);
    return got;
}

Test(session_acl, mount_options_say_it_too)
{
    cr_expect_eq(settled_acl(NULL, MF_ACL_OWNER), MF_ACL_OWNER);
    cr_expect_eq(settled_acl("allow_other", MF_ACL_OWNER), MF_ACL_ALL);
    cr_expect_eq(settled_acl("allow_root", MF_ACL_OWNER), MF_ACL_ROOT_AND_OWNER);
    cr_expect_eq(settled_acl(NULL, MF_ACL_ROOT_AND_OWNER), MF_ACL_ROOT_AND_OWNER);
    cr_expect_eq(settled_acl("allow_other", MF_ACL_ROOT_AND_OWNER), MF_ACL_ROOT_AND_OWNER);
    cr_expect_eq(settled_acl(NULL, MF_ACL_ALL), MF_ACL_ALL);
}

/* Whoever made the mount decided by allow_other; an option can only narrow that. */
Test(session_acl, of_an_attached_mount, .timeout = 30)
{
    const uint32_t acls[][2] = { { MF_ACL_OWNER, MF_ACL_ALL },
                                 { MF_ACL_ROOT_AND_OWNER, MF_ACL_ROOT_AND_OWNER },
                                 { MF_ACL_ALL, MF_ACL_ALL } };

    for (size_t i = 0; i < 3; i++) {
        fs_init(&rig);
        rig.opts.acl = acls[i][0];
        fs_connect(&rig);
        cr_expect_eq(rig.s->terms.acl, acls[i][1]);
        fs_end(&rig);
    }
}
