/* SPDX-License-Identifier: MIT */
/* opcode.def: the only list of opcodes says what the protocol says. */
#include <criterion/criterion.h>
#include <string.h>

#include "wire/wire.h"

static bool is_known(uint32_t nr)
{
    return nr >= 1 && nr <= 53 && nr != 7 && nr != 19;
}

Test(wire_opcodes, table_has_all_numbers_and_no_others)
{
    unsigned known = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        cr_expect_eq(mf__opcode(nr)->known, is_known(nr), "opcode %u", nr);
        cr_expect_eq(mf__opcodes[nr].known, is_known(nr), "opcode %u", nr);
        known += mf__opcode(nr)->known;
    }
    cr_expect_eq(known, 51);
}

Test(wire_opcodes, every_other_number_gives_an_unknown_row)
{
    const uint32_t numbers[] = {
        0,          7,         19, 54, 64, 65, 255, 256, CUSE_INIT, CUSE_INIT_BSWAP_RESERVED, FUSE_INIT_BSWAP_RESERVED,
        0x80000001, UINT32_MAX
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(numbers); i++) {
        const struct mf__opcode *row = mf__opcode(numbers[i]);

        cr_assert_not_null(row);
        cr_expect_not(row->known, "%u", numbers[i]);
        cr_expect_not_null(row->name);
        cr_expect_eq(row->args_size, 0);
        cr_expect_eq(row->slot, 0);
        cr_expect_neq(row->reply, MF__REPLY_NEVER, "whoever asks waits for an answer");
    }
}

Test(wire_opcodes, names_are_the_kernels)
{
    cr_expect_str_eq(mf__opcode(FUSE_LOOKUP)->name, "LOOKUP");
    cr_expect_str_eq(mf__opcode(FUSE_COPY_FILE_RANGE_64)->name, "COPY_FILE_RANGE_64");
    for (uint32_t a = 0; a < MF__OPCODES; a++)
        for (uint32_t b = a + 1; b < MF__OPCODES; b++)
            if (is_known(a) && is_known(b))
                cr_expect_str_neq(mf__opcodes[a].name, mf__opcodes[b].name);
}

Test(wire_opcodes, argument_sizes_are_those_of_the_structures)
{
    static const size_t size[MF__OPCODES] = {
        [FUSE_FORGET] = sizeof(struct fuse_forget_in),
        [FUSE_GETATTR] = sizeof(struct fuse_getattr_in),
        [FUSE_SETATTR] = sizeof(struct fuse_setattr_in),
        [FUSE_MKNOD] = sizeof(struct fuse_mknod_in),
        [FUSE_MKDIR] = sizeof(struct fuse_mkdir_in),
        [FUSE_RENAME] = sizeof(struct fuse_rename_in),
        [FUSE_LINK] = sizeof(struct fuse_link_in),
        [FUSE_OPEN] = sizeof(struct fuse_open_in),
        [FUSE_READ] = sizeof(struct fuse_read_in),
        [FUSE_WRITE] = sizeof(struct fuse_write_in),
        [FUSE_RELEASE] = sizeof(struct fuse_release_in),
        [FUSE_FSYNC] = sizeof(struct fuse_fsync_in),
        [FUSE_SETXATTR] = sizeof(struct fuse_setxattr_in),
        [FUSE_GETXATTR] = sizeof(struct fuse_getxattr_in),
        [FUSE_LISTXATTR] = sizeof(struct fuse_getxattr_in),
        [FUSE_FLUSH] = sizeof(struct fuse_flush_in),
        [FUSE_INIT] = sizeof(struct fuse_init_in),
        [FUSE_OPENDIR] = sizeof(struct fuse_open_in),
        [FUSE_READDIR] = sizeof(struct fuse_read_in),
        [FUSE_RELEASEDIR] = sizeof(struct fuse_release_in),
        [FUSE_FSYNCDIR] = sizeof(struct fuse_fsync_in),
        [FUSE_GETLK] = sizeof(struct fuse_lk_in),
        [FUSE_SETLK] = sizeof(struct fuse_lk_in),
        [FUSE_SETLKW] = sizeof(struct fuse_lk_in),
        [FUSE_ACCESS] = sizeof(struct fuse_access_in),
        [FUSE_CREATE] = sizeof(struct fuse_create_in),
        [FUSE_INTERRUPT] = sizeof(struct fuse_interrupt_in),
        [FUSE_BMAP] = sizeof(struct fuse_bmap_in),
        [FUSE_IOCTL] = sizeof(struct fuse_ioctl_in),
        [FUSE_POLL] = sizeof(struct fuse_poll_in),
        [FUSE_NOTIFY_REPLY] = sizeof(struct fuse_notify_retrieve_in),
        [FUSE_BATCH_FORGET] = sizeof(struct fuse_batch_forget_in),
        [FUSE_FALLOCATE] = sizeof(struct fuse_fallocate_in),
        [FUSE_READDIRPLUS] = sizeof(struct fuse_read_in),
        [FUSE_RENAME2] = sizeof(struct fuse_rename2_in),
        [FUSE_LSEEK] = sizeof(struct fuse_lseek_in),
        [FUSE_COPY_FILE_RANGE] = sizeof(struct fuse_copy_file_range_in),
        [FUSE_SETUPMAPPING] = sizeof(struct fuse_setupmapping_in),
        [FUSE_REMOVEMAPPING] = sizeof(struct fuse_removemapping_in),
        [FUSE_SYNCFS] = sizeof(struct fuse_syncfs_in),
        [FUSE_TMPFILE] = sizeof(struct fuse_create_in),
        [FUSE_STATX] = sizeof(struct fuse_statx_in),
        [FUSE_COPY_FILE_RANGE_64] = sizeof(struct fuse_copy_file_range_in),
    };

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        cr_expect_eq(mf__opcodes[nr].args_size, size[nr], "%s", mf__opcode(nr)->name);
        cr_expect_leq(mf__opcodes[nr].args_least, size[nr], "%s", mf__opcode(nr)->name);
    }
}

Test(wire_opcodes, slots_are_the_public_operations)
{
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        const struct mf__opcode *row = &mf__opcodes[nr];

        switch (nr) {
        case FUSE_RENAME2: cr_expect_eq(row->slot, MF_OP_RENAME); break;
        case FUSE_BATCH_FORGET: cr_expect_eq(row->slot, MF_OP_FORGET); break;
        case FUSE_COPY_FILE_RANGE_64: cr_expect_eq(row->slot, MF_OP_COPY_FILE_RANGE); break;
        case FUSE_INIT:
        case FUSE_INTERRUPT:
        case FUSE_DESTROY:
        case FUSE_NOTIFY_REPLY:
        case FUSE_SETUPMAPPING:
        case FUSE_REMOVEMAPPING: cr_expect_eq(row->slot, 0, "%s", row->name); break;
        default: cr_expect_eq(row->slot, is_known(nr) ? nr : 0, "%u", nr);
        }
    }
}

static uint64_t with_property(uint32_t property)
{
    uint64_t set = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++)
        if (mf__opcodes[nr].props & property)
            set |= 1ull << nr;
    return set;
}

#define BIT(op) (1ull << FUSE_##op)

Test(wire_opcodes, properties)
{
    cr_expect_eq(with_property(MF__OPC_SESSION), BIT(INIT) | BIT(INTERRUPT) | BIT(DESTROY) | BIT(NOTIFY_REPLY));
    cr_expect_eq(with_property(MF__OPC_ALWAYS), BIT(RELEASE) | BIT(RELEASEDIR));
    cr_expect_eq(with_property(MF__OPC_LATER), BIT(GETLK) | BIT(SETLK) | BIT(SETLKW) | BIT(BMAP) | BIT(IOCTL) |
                                                   BIT(POLL) | BIT(FALLOCATE) | BIT(READDIRPLUS) | BIT(LSEEK) |
                                                   BIT(COPY_FILE_RANGE) | BIT(COPY_FILE_RANGE_64) | BIT(SYNCFS) |
                                                   BIT(TMPFILE) | BIT(STATX) | BIT(SETUPMAPPING) | BIT(REMOVEMAPPING));
}

/* What names a node afresh is checked; what goes on with an open file, or comes from the kernel itself, is not. */
Test(wire_opcodes, acl_spares_open_files_and_the_kernel)
{
    const uint64_t spared = BIT(FORGET) | BIT(BATCH_FORGET) | BIT(READ) | BIT(WRITE) | BIT(RELEASE) | BIT(FSYNC) |
                            BIT(FLUSH) | BIT(INIT) | BIT(READDIR) | BIT(READDIRPLUS) | BIT(RELEASEDIR) | BIT(FSYNCDIR) |
                            BIT(GETLK) | BIT(SETLK) | BIT(SETLKW) | BIT(INTERRUPT) | BIT(DESTROY) | BIT(IOCTL) |
                            BIT(POLL) | BIT(NOTIFY_REPLY) | BIT(FALLOCATE) | BIT(LSEEK) | BIT(COPY_FILE_RANGE) |
                            BIT(COPY_FILE_RANGE_64) | BIT(SETUPMAPPING) | BIT(REMOVEMAPPING) | BIT(SYNCFS);
    uint64_t all = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++)
        all |= (uint64_t)is_known(nr) << nr;
    cr_expect_eq(with_property(MF__OPC_ACL), all & ~spared);
}

Test(wire_opcodes, only_these_are_never_answered)
{
    uint64_t never = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++)
        if (is_known(nr) && mf__opcodes[nr].reply == MF__REPLY_NEVER)
            never |= 1ull << nr;
    cr_expect_eq(never, BIT(FORGET) | BIT(BATCH_FORGET) | BIT(NOTIFY_REPLY) | BIT(INTERRUPT));
}

Test(wire_opcodes, kinds_of_answers)
{
    static const struct {
        uint32_t nr;
        uint8_t reply;
    } rows[] = {
        { FUSE_LOOKUP, MF__REPLY_ENTRY },    { FUSE_GETATTR, MF__REPLY_ATTR },
        { FUSE_SETATTR, MF__REPLY_ATTR },    { FUSE_READLINK, MF__REPLY_DATA },
        { FUSE_SYMLINK, MF__REPLY_ENTRY },   { FUSE_MKNOD, MF__REPLY_ENTRY },
        { FUSE_MKDIR, MF__REPLY_ENTRY },     { FUSE_UNLINK, MF__REPLY_EMPTY },
        { FUSE_RENAME2, MF__REPLY_EMPTY },   { FUSE_LINK, MF__REPLY_ENTRY },
        { FUSE_OPEN, MF__REPLY_OPEN },       { FUSE_READ, MF__REPLY_DATA },
        { FUSE_WRITE, MF__REPLY_WRITE },     { FUSE_STATFS, MF__REPLY_STATFS },
        { FUSE_RELEASE, MF__REPLY_EMPTY },   { FUSE_GETXATTR, MF__REPLY_XATTR },
        { FUSE_LISTXATTR, MF__REPLY_XATTR }, { FUSE_SETXATTR, MF__REPLY_EMPTY },
        { FUSE_INIT, MF__REPLY_INIT },       { FUSE_OPENDIR, MF__REPLY_OPEN },
        { FUSE_READDIR, MF__REPLY_DATA },    { FUSE_READDIRPLUS, MF__REPLY_DATA },
        { FUSE_GETLK, MF__REPLY_LK },        { FUSE_SETLKW, MF__REPLY_EMPTY },
        { FUSE_CREATE, MF__REPLY_CREATE },   { FUSE_TMPFILE, MF__REPLY_CREATE },
        { FUSE_BMAP, MF__REPLY_BMAP },       { FUSE_IOCTL, MF__REPLY_IOCTL },
        { FUSE_POLL, MF__REPLY_POLL },       { FUSE_LSEEK, MF__REPLY_LSEEK },
        { FUSE_STATX, MF__REPLY_STATX },     { FUSE_COPY_FILE_RANGE, MF__REPLY_WRITE },
        { FUSE_DESTROY, MF__REPLY_EMPTY },   { FUSE_COPY_FILE_RANGE_64, MF__REPLY_COPY64 },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(rows); i++)
        cr_expect_eq(mf__opcodes[rows[i].nr].reply, rows[i].reply, "%s", mf__opcodes[rows[i].nr].name);
}
