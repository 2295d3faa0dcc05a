/* SPDX-License-Identifier: MIT */
/* Messages to records: each field of each opcode, each truncation, names, both transports' forms. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"
#include "wire_message.h"

#define HEAD sizeof(struct fuse_in_header)
#define EXT FUSE_SETXATTR_EXT

static struct wire w; /* each test has its own process */

/* ---- what a decoded record must be ------------------------------------------------------------------- */

/*
 * Decode and compare the whole record. In `want`, name and name2 are compared as strings and data by content;
 * all three must lie in the message.
 */
static void expect_record(const struct wire *in, uint64_t flags, struct mf_call want, const char *what)
{
    uint8_t *m = wire_heap(in, in->len, 0);
    struct mf_forget one = { 0 };
    struct mf__msg msg;
    struct mf_call got;
    size_t data_size = want.op == MF_OP_FORGET || want.op == 0 ? want.length * 16 : want.length;

    memset(&got, 0xa5, sizeof(got));
    cr_assert_eq(mf__msg_split(&msg, m, in->len), 0, "%s", what);
    cr_assert_eq(mf__decode(&msg, flags, &got, &one), 0, "%s", what);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? got.name2 : got.name;
        const char *wanted = i ? want.name2 : want.name;

        cr_assert_eq(!name, !wanted, "%s: name %d", what, i);
        if (name)
            cr_expect_str_eq(name, wanted, "%s", what);
    }
    cr_expect_eq(got.name_len, want.name ? strlen(want.name) : 0, "%s", what);
    cr_expect_eq(got.name2_len, want.name2 ? strlen(want.name2) : 0, "%s", what);
    cr_assert_eq(!got.data, !want.data, "%s: data", what);
    if (got.data)
        cr_expect_arr_eq(got.data, want.data, data_size, "%s", what);
    want.size = sizeof(want);
    want.unique = want.unique ? want.unique : WIRE_UNIQUE;
    want.uid = WIRE_UID;
    want.gid = WIRE_GID;
    want.pid = WIRE_PID;
    want.name = got.name;
    want.name2 = got.name2;
    want.name_len = got.name_len;
    want.name2_len = got.name2_len;
    want.data = got.data;
    cr_expect_arr_eq(&got, &want, offsetof(struct mf_call, buf), "%s", what);
    for (size_t i = offsetof(struct mf_call, buf); i < sizeof(got); i++)
        cr_assert_eq(((uint8_t *)&got)[i], 0xa5, "%s: byte %zu belongs to the session", what, i);
    wire_free(m, 0);
}

/* A call with the node of the header: on no file, on an open one. */
#define CALL(...) ((struct mf_call){ .node = WIRE_NODE, .fh = MF_NO_FH, __VA_ARGS__ })
#define ON(handle, ...) ((struct mf_call){ .node = WIRE_NODE, .fh = (handle), __VA_ARGS__ })

#define START(opcode, type, ...)            \
    do {                                    \
        struct type args = { __VA_ARGS__ }; \
                                            \
        wire_start(&w, opcode);             \
        wire_args(&w, &args, sizeof(args)); \
    } while (0)

static int decode_with(const struct wire *in, uint64_t flags)
{
    uint8_t *m = wire_heap(in, in->len, 0);
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;
    int rc = mf__msg_split(&msg, m, in->len);

    if (rc == 0)
        rc = mf__decode(&msg, flags, &call, &one);
    wire_free(m, 0);
    return rc;
}

/* ---- each opcode's fields ---------------------------------------------------------------------------- */

Test(wire_decode, one_name)
{
    const uint32_t ops[] = { FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR, FUSE_REMOVEXATTR };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++) {
        wire_start(&w, ops[i]);
        wire_name(&w, "some name");
        expect_record(&w, EXT, CALL(.op = ops[i], .name = "some name"), mf__opcode(ops[i])->name);
    }
}

Test(wire_decode, header_only)
{
    const uint32_t ops[] = { FUSE_READLINK, FUSE_STATFS };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++) {
        wire_start(&w, ops[i]);
        expect_record(&w, EXT, CALL(.op = ops[i]), mf__opcode(ops[i])->name);
    }
    wire_start(&w, FUSE_DESTROY);
    expect_record(&w, EXT, CALL(.op = 0), "DESTROY");
}

Test(wire_decode, forget)
{
    struct mf_forget one = { .node = WIRE_NODE, .nlookup = 17 };

    START(FUSE_FORGET, fuse_forget_in, .nlookup = 17);
    expect_record(&w, EXT, CALL(.op = MF_OP_FORGET, .data = &one, .length = 1), "FORGET");
}

Test(wire_decode, batch_forget)
{
    struct fuse_forget_one items[3] = { { 5, 1 }, { 6, 0 }, { 0xfffffffffffffffe, 1ull << 63 } };
    struct mf_forget want[3] = { { 5, 1 }, { 6, 0 }, { 0xfffffffffffffffe, 1ull << 63 } };

    START(FUSE_BATCH_FORGET, fuse_batch_forget_in, .count = 3);
    wire_data(&w, items, sizeof(items));
    expect_record(&w, EXT, CALL(.op = MF_OP_FORGET, .data = want, .length = 3), "BATCH_FORGET");
    START(FUSE_BATCH_FORGET, fuse_batch_forget_in, .count = 0);
    expect_record(&w, EXT, CALL(.op = MF_OP_FORGET, .data = want, .length = 0), "empty BATCH_FORGET");
}

Test(wire_decode, batch_forget_counts_are_checked)
{
    const uint32_t counts[] = { 3, 4, 0x10000000, 0x10000002, 0x7fffffff, UINT32_MAX };
    struct fuse_forget_one items[2] = { { 5, 1 }, { 6, 1 } };

    for (size_t i = 0; i < MF__ARRAY_SIZE(counts); i++) {
        START(FUSE_BATCH_FORGET, fuse_batch_forget_in, .count = counts[i]);
        wire_data(&w, items, sizeof(items));
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "count %u with 2 records", counts[i]);
    }
}

Test(wire_decode, batch_forget_is_aligned_where_the_message_is)
{
    wire_sample(&w, FUSE_BATCH_FORGET);
    uint8_t *m = wire_heap(&w, w.len, 0);
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;

    cr_assert_eq((uintptr_t)m % 16, 0);
    cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
    cr_assert_eq(mf__decode(&msg, EXT, &call, &one), 0);
    cr_expect_eq((uintptr_t)call.data % _Alignof(struct mf_forget), 0);
    wire_free(m, 0);
}

Test(wire_decode, getattr)
{
    START(FUSE_GETATTR, fuse_getattr_in, .getattr_flags = FUSE_GETATTR_FH, .fh = 77);
    expect_record(&w, EXT, ON(77, .op = MF_OP_GETATTR), "with a file");
    START(FUSE_GETATTR, fuse_getattr_in, .fh = 77);
    expect_record(&w, EXT, CALL(.op = MF_OP_GETATTR), "without");
    wire_start(&w, FUSE_GETATTR);
    expect_record(&w, EXT, CALL(.op = MF_OP_GETATTR), "before 7.9");
}

Test(wire_decode, setattr)
{
    const struct mf_attr attr = { .size = 1ull << 40,
                                  .atime = -5,
                                  .mtime = 6,
                                  .ctime = 7,
                                  .atimensec = 8,
                                  .mtimensec = 9,
                                  .ctimensec = 10,
                                  .mode = 0100644,
                                  .uid = 11,
                                  .gid = 12 };

    START(FUSE_SETATTR, fuse_setattr_in, .valid = MF_SET_SIZE | MF_SET_FH | MF_SET_LOCKOWNER, .fh = 3,
          .size = 1ull << 40, .lock_owner = 4, .atime = (uint64_t)-5, .mtime = 6, .ctime = 7, .atimensec = 8,
          .mtimensec = 9, .ctimensec = 10, .mode = 0100644, .uid = 11, .gid = 12);
    expect_record(
        &w, EXT,
        ON(3, .op = MF_OP_SETATTR, .valid = MF_SET_SIZE | MF_SET_FH | MF_SET_LOCKOWNER, .lock_owner = 4, .attr = attr),
        "with a file");
    START(FUSE_SETATTR, fuse_setattr_in, .valid = MF_SET_MODE, .fh = 3, .mode = 0644);
    expect_record(&w, EXT, CALL(.op = MF_OP_SETATTR, .valid = MF_SET_MODE, .attr = { .mode = 0644 }), "without");
}

Test(wire_decode, nodes_that_are_made)
{
    START(FUSE_MKNOD, fuse_mknod_in, .mode = 0020666, .rdev = 0x105, .umask = 022);
    wire_name(&w, "null");
    expect_record(&w, EXT, CALL(.op = MF_OP_MKNOD, .name = "null", .mode = 0020666, .rdev = 0x105, .umask = 022),
                  "MKNOD");
    START(FUSE_MKDIR, fuse_mkdir_in, .mode = 0755, .umask = 027);
    wire_name(&w, "d");
    expect_record(&w, EXT, CALL(.op = MF_OP_MKDIR, .name = "d", .mode = 0755, .umask = 027), "MKDIR");
    START(FUSE_CREATE, fuse_create_in, .flags = 0102, .mode = 0100644, .umask = 02, .open_flags = 1);
    wire_name(&w, "f");
    expect_record(&w, EXT,
                  CALL(.op = MF_OP_CREATE, .name = "f", .flags = 0102, .mode = 0100644, .umask = 02, .op_flags = 1),
                  "CREATE");
    START(FUSE_TMPFILE, fuse_create_in, .flags = 0102, .mode = 0100644, .umask = 02, .open_flags = 1);
    wire_name(&w, "/");
    expect_record(&w, EXT,
                  CALL(.op = MF_OP_TMPFILE, .name = "", .flags = 0102, .mode = 0100644, .umask = 02, .op_flags = 1),
                  "TMPFILE");
    wire_start(&w, FUSE_SYMLINK);
    wire_name(&w, "link");
    wire_name(&w, "../to/there");
    expect_record(&w, EXT, CALL(.op = MF_OP_SYMLINK, .name = "link", .name2 = "../to/there"), "SYMLINK");
}

Test(wire_decode, two_names)
{
    START(FUSE_RENAME, fuse_rename_in, .newdir = 9);
    wire_name(&w, "old");
    wire_name(&w, "newer");
    expect_record(&w, EXT, CALL(.op = MF_OP_RENAME, .node2 = 9, .name = "old", .name2 = "newer"), "RENAME");
    START(FUSE_RENAME2, fuse_rename2_in, .newdir = 9, .flags = 2);
    wire_name(&w, "old");
    wire_name(&w, "newer");
    expect_record(&w, EXT, CALL(.op = MF_OP_RENAME, .node2 = 9, .name = "old", .name2 = "newer", .flags = 2),
                  "RENAME2");
}

Test(wire_decode, link_names_the_existing_node_first)
{
    START(FUSE_LINK, fuse_link_in, .oldnodeid = 9);
    wire_name(&w, "alias");
    expect_record(&w, EXT,
                  (struct mf_call){ .op = MF_OP_LINK, .node = 9, .node2 = WIRE_NODE, .fh = MF_NO_FH, .name2 = "alias" },
                  "LINK");
}

Test(wire_decode, open_and_opendir)
{
    START(FUSE_OPEN, fuse_open_in, .flags = 0100002, .open_flags = 1);
    expect_record(&w, EXT, CALL(.op = MF_OP_OPEN, .flags = 0100002, .op_flags = 1), "OPEN");
    START(FUSE_OPENDIR, fuse_open_in, .flags = 0200000, .open_flags = 0);
    expect_record(&w, EXT, CALL(.op = MF_OP_OPENDIR, .flags = 0200000), "OPENDIR");
}

Test(wire_decode, reads)
{
    const uint32_t ops[] = { FUSE_READ, FUSE_READDIR, FUSE_READDIRPLUS };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++) {
        START(ops[i], fuse_read_in, .fh = 1, .offset = 1ull << 33, .size = 4096, .read_flags = 2, .lock_owner = 3,
              .flags = 4);
        expect_record(
            &w, EXT,
            ON(1, .op = ops[i], .offset = 1ull << 33, .length = 4096, .op_flags = 2, .lock_owner = 3, .flags = 4),
            mf__opcode(ops[i])->name);
    }
}

Test(wire_decode, write)
{
    START(FUSE_WRITE, fuse_write_in, .fh = 1, .offset = 1ull << 33, .size = 5, .write_flags = 2, .lock_owner = 3,
          .flags = 4);
    wire_data(&w, "a\0b/c", 5);
    expect_record(&w, EXT,
                  ON(1, .op = MF_OP_WRITE, .offset = 1ull << 33, .length = 5, .data = "a\0b/c", .op_flags = 2,
                     .lock_owner = 3, .flags = 4),
                  "WRITE");
    START(FUSE_WRITE, fuse_write_in, .fh = 1);
    expect_record(&w, EXT, ON(1, .op = MF_OP_WRITE, .data = ""), "WRITE of nothing");
}

Test(wire_decode, data_must_have_their_length)
{
    const uint32_t sizes[] = { 0, 4, 6, 0x80000000, UINT32_MAX };

    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        START(FUSE_WRITE, fuse_write_in, .size = sizes[i]);
        wire_data(&w, "12345", 5);
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "WRITE, size %u", sizes[i]);
        START(FUSE_IOCTL, fuse_ioctl_in, .in_size = sizes[i]);
        wire_data(&w, "12345", 5);
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "IOCTL, size %u", sizes[i]);
        START(FUSE_NOTIFY_REPLY, fuse_notify_retrieve_in, .size = sizes[i]);
        wire_data(&w, "12345", 5);
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "NOTIFY_REPLY, size %u", sizes[i]);
        START(FUSE_SETXATTR, fuse_setxattr_in, .size = sizes[i]);
        wire_name(&w, "user.a");
        wire_data(&w, "12345", 5);
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "SETXATTR, size %u", sizes[i]);
    }
}

Test(wire_decode, ends_of_open_files)
{
    START(FUSE_FLUSH, fuse_flush_in, .fh = 1, .lock_owner = 2);
    expect_record(&w, EXT, ON(1, .op = MF_OP_FLUSH, .lock_owner = 2), "FLUSH");
    START(FUSE_RELEASE, fuse_release_in, .fh = 1, .flags = 2, .release_flags = 3, .lock_owner = 4);
    expect_record(&w, EXT, ON(1, .op = MF_OP_RELEASE, .flags = 2, .op_flags = 3, .lock_owner = 4), "RELEASE");
    START(FUSE_RELEASEDIR, fuse_release_in, .fh = 1, .flags = 2, .release_flags = 3, .lock_owner = 4);
    expect_record(&w, EXT, ON(1, .op = MF_OP_RELEASEDIR, .flags = 2, .op_flags = 3, .lock_owner = 4), "RELEASEDIR");
    START(FUSE_FSYNC, fuse_fsync_in, .fh = 1, .fsync_flags = 1);
    expect_record(&w, EXT, ON(1, .op = MF_OP_FSYNC, .flags = 1), "FSYNC");
    START(FUSE_FSYNCDIR, fuse_fsync_in, .fh = 1, .fsync_flags = 1);
    expect_record(&w, EXT, ON(1, .op = MF_OP_FSYNCDIR, .flags = 1), "FSYNCDIR");
}

Test(wire_decode, access)
{
    START(FUSE_ACCESS, fuse_access_in, .mask = 6);
    expect_record(&w, EXT, CALL(.op = MF_OP_ACCESS, .flags = 6), "ACCESS");
}

Test(wire_decode, setxattr_long_form)
{
    START(FUSE_SETXATTR, fuse_setxattr_in, .size = 3, .flags = 1, .setxattr_flags = 2);
    wire_name(&w, "user.a/b");
    wire_data(&w, "v\0v", 3);
    expect_record(
        &w, EXT, CALL(.op = MF_OP_SETXATTR, .name = "user.a/b", .data = "v\0v", .length = 3, .flags = 1, .op_flags = 2),
        "SETXATTR");
}

Test(wire_decode, setxattr_short_form)
{
    const char *names[] = { "a", "user.a", "user.of sixteen", "user.a name that is longer than the structure" };

    for (size_t i = 0; i < MF__ARRAY_SIZE(names); i++) {
        for (uint32_t size = 0; size < 12; size++) {
            struct fuse_setxattr_in args = { .size = size, .flags = 1 };

            wire_start(&w, FUSE_SETXATTR);
            wire_args(&w, &args, FUSE_COMPAT_SETXATTR_IN_SIZE);
            wire_name(&w, names[i]);
            wire_data(&w, "twelve bytes", size);
            expect_record(
                &w, 0, CALL(.op = MF_OP_SETXATTR, .name = names[i], .data = "twelve bytes", .length = size, .flags = 1),
                names[i]);
        }
    }
}

Test(wire_decode, other_xattrs)
{
    START(FUSE_GETXATTR, fuse_getxattr_in, .size = 100);
    wire_name(&w, "user.a/b");
    expect_record(&w, EXT, CALL(.op = MF_OP_GETXATTR, .name = "user.a/b", .length = 100), "GETXATTR");
    START(FUSE_LISTXATTR, fuse_getxattr_in, .size = 101);
    expect_record(&w, EXT, CALL(.op = MF_OP_LISTXATTR, .length = 101), "LISTXATTR");
}

Test(wire_decode, locks)
{
    const uint32_t ops[] = { FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++) {
        START(ops[i], fuse_lk_in, .fh = 1, .owner = 2, .lk = { .start = 3, .end = 4, .type = 5, .pid = 6 },
              .lk_flags = 7);
        expect_record(
            &w, EXT,
            ON(1, .op = ops[i], .lock_owner = 2, .offset = 3, .length = 4, .flags = 5, .valid = 6, .op_flags = 7),
            mf__opcode(ops[i])->name);
    }
}

Test(wire_decode, ioctl_and_poll)
{
    START(FUSE_IOCTL, fuse_ioctl_in, .fh = 1, .flags = 2, .cmd = 3, .arg = 4, .in_size = 4, .out_size = 6);
    wire_data(&w, "\0in/", 4);
    expect_record(
        &w, EXT,
        ON(1, .op = MF_OP_IOCTL, .op_flags = 2, .flags = 3, .offset = 4, .length = 4, .offset2 = 6, .data = "\0in/"),
        "IOCTL");
    START(FUSE_POLL, fuse_poll_in, .fh = 1, .kh = 2, .flags = 3, .events = 4);
    expect_record(&w, EXT, ON(1, .op = MF_OP_POLL, .offset = 2, .op_flags = 3, .flags = 4), "POLL");
}

Test(wire_decode, ranges)
{
    START(FUSE_FALLOCATE, fuse_fallocate_in, .fh = 1, .offset = 2, .length = 3, .mode = 4);
    expect_record(&w, EXT, ON(1, .op = MF_OP_FALLOCATE, .offset = 2, .length = 3, .mode = 4), "FALLOCATE");
    START(FUSE_LSEEK, fuse_lseek_in, .fh = 1, .offset = 2, .whence = 3);
    expect_record(&w, EXT, ON(1, .op = MF_OP_LSEEK, .offset = 2, .flags = 3), "LSEEK");
    START(FUSE_BMAP, fuse_bmap_in, .block = 1, .blocksize = 2);
    expect_record(&w, EXT, CALL(.op = MF_OP_BMAP, .offset = 1, .length = 2), "BMAP");
    START(FUSE_SYNCFS, fuse_syncfs_in, .padding = 1);
    expect_record(&w, EXT, CALL(.op = MF_OP_SYNCFS), "SYNCFS");
    START(FUSE_STATX, fuse_statx_in, .getattr_flags = 1, .fh = 2, .sx_flags = 3, .sx_mask = 4);
    expect_record(&w, EXT, ON(2, .op = MF_OP_STATX, .flags = 3, .valid = 4), "STATX");
    START(FUSE_STATX, fuse_statx_in, .getattr_flags = 0, .fh = 2, .sx_flags = 3, .sx_mask = 4);
    expect_record(&w, EXT, CALL(.op = MF_OP_STATX, .flags = 3, .valid = 4), "STATX without a file");
}

Test(wire_decode, copies)
{
    const uint32_t ops[] = { FUSE_COPY_FILE_RANGE, FUSE_COPY_FILE_RANGE_64 };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++) {
        START(ops[i], fuse_copy_file_range_in, .fh_in = 1, .off_in = 2, .nodeid_out = 3, .fh_out = 4, .off_out = 5,
              .len = 1ull << 62, .flags = 7);
        expect_record(&w, EXT,
                      ON(1, .op = MF_OP_COPY_FILE_RANGE, .offset = 2, .node2 = 3, .fh2 = 4, .offset2 = 5,
                         .length = 1ull << 62, .flags = 7),
                      mf__opcode(ops[i])->name);
        START(ops[i], fuse_copy_file_range_in, .flags = 1ull << 32);
        cr_expect_eq(decode_with(&w, EXT), -EPROTO, "flags that do not fit are not dropped");
    }
}

Test(wire_decode, mappings)
{
    struct fuse_removemapping_one items[2] = { { 1, 2 }, { 3, 4 } };

    START(FUSE_SETUPMAPPING, fuse_setupmapping_in, .fh = 1, .foffset = 2, .len = 3, .flags = 2, .moffset = 5);
    expect_record(&w, EXT, ON(1, .offset = 2, .length = 3, .flags = 2, .offset2 = 5), "SETUPMAPPING");
    START(FUSE_REMOVEMAPPING, fuse_removemapping_in, .count = 2);
    wire_data(&w, items, sizeof(items));
    expect_record(&w, EXT, CALL(.data = items, .length = 2), "REMOVEMAPPING");
    START(FUSE_REMOVEMAPPING, fuse_removemapping_in, .count = 3);
    wire_data(&w, items, sizeof(items));
    cr_expect_eq(decode_with(&w, EXT), -EPROTO);
}

Test(wire_decode, notify_reply)
{
    struct mf__msg msg;
    struct mf_call call;

    START(FUSE_NOTIFY_REPLY, fuse_notify_retrieve_in, .offset = 4096, .size = 4);
    wire_data(&w, "page", 4);
    uint8_t *m = wire_heap(&w, w.len, 0);
    cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
    cr_assert_eq(mf__decode(&msg, 0, &call, NULL), 0);
    cr_expect_eq(call.op, 0);
    cr_expect_eq(call.node, WIRE_NODE);
    cr_expect_eq(call.offset, 4096);
    cr_expect_eq(call.length, 4);
    cr_expect_arr_eq(call.data, "page", 4);
    wire_free(m, 0);
}

Test(wire_decode, a_request_sent_again_says_so)
{
    wire_start(&w, FUSE_STATFS);
    wire_header(&w, 42 | FUSE_UNIQUE_RESEND, 1);
    expect_record(&w, 0,
                  (struct mf_call){
                      .op = MF_OP_STATFS, .node = 1, .fh = MF_NO_FH, .unique = 42 | FUSE_UNIQUE_RESEND, .again = 1 },
                  "again");
}

/* ---- the session's messages -------------------------------------------------------------------------- */

Test(wire_decode, init_in_its_three_lengths)
{
    struct fuse_init_in args = {
        .major = 7, .minor = 45, .max_readahead = 131072, .flags = 0x73fffffb, .flags2 = 0x5fd
    };
    struct fuse_init_in out;
    struct mf__msg msg;

    args.unused[10] = 99;
    for (size_t n = 0; n <= sizeof(args) + 8; n++) {
        bool valid = n == 8 || n == 16 || n >= sizeof(args); /* a longer one is a later protocol's */
        struct fuse_init_in want = { 0 };

        wire_start(&w, FUSE_INIT);
        wire_data(&w, &args, n < sizeof(args) ? n : sizeof(args));
        wire_data(&w, "12345678", n < sizeof(args) ? 0 : n - sizeof(args));
        memcpy(&want, &args, n < sizeof(args) ? n : sizeof(args));
        uint8_t *m = wire_heap(&w, w.len, 0);
        cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
        memset(&out, 0xa5, sizeof(out));
        cr_expect_eq(mf__decode_init(&msg, &out), valid ? 0 : -EPROTO, "%zu bytes", n);
        if (valid)
            cr_expect_arr_eq(&out, &want, sizeof(out), "%zu bytes", n);
        wire_free(m, 0);
    }
}

Test(wire_decode, interrupt)
{
    struct mf__msg msg;
    uint64_t unique = 0;

    for (size_t n = 0; n <= 8; n++) {
        struct fuse_interrupt_in args = { .unique = 0x123456789a };

        wire_start(&w, FUSE_INTERRUPT);
        wire_data(&w, &args, n);
        uint8_t *m = wire_heap(&w, w.len, 0);
        cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
        cr_expect_eq(mf__decode_interrupt(&msg, &unique), n == 8 ? 0 : -EPROTO, "%zu bytes", n);
        wire_free(m, 0);
    }
    cr_expect_eq(unique, 0x123456789a);
}

Test(wire_decode, init_and_interrupt_take_no_other_message)
{
    struct fuse_init_in init;
    struct mf__msg msg;
    uint64_t unique;

    wire_sample(&w, FUSE_FORGET);
    cr_assert_eq(mf__msg_split(&msg, w.bytes, w.len), 0);
    cr_expect_eq(mf__decode_init(&msg, &init), -EPROTO);
    cr_expect_eq(mf__decode_interrupt(&msg, &unique), -EPROTO);
}

/* ---- what is no message ------------------------------------------------------------------------------ */

Test(wire_decode, unknown_opcodes)
{
    const uint32_t numbers[] = {
        0, 7, 19, 54, 63, 64, 255, 256 + FUSE_LOOKUP, CUSE_INIT, FUSE_INIT_BSWAP_RESERVED, UINT32_MAX
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(numbers); i++) {
        wire_start(&w, numbers[i]);
        wire_name(&w, "x");
        cr_expect_eq(decode_with(&w, EXT), -ENOSYS, "%u", numbers[i]);
    }
}

Test(wire_decode, lengths_that_contradict)
{
    struct mf__msg msg;

    wire_sample(&w, FUSE_LOOKUP);
    cr_expect_eq(mf__msg_split(&msg, w.bytes, w.len), 0);
    cr_expect_eq(mf__msg_split(&msg, w.bytes, w.len - 1), -EPROTO, "the header says more than there is");
    cr_expect_eq(mf__msg_split(&msg, w.bytes, w.len + 1), -EPROTO, "the header says less than there is");
}

Test(wire_decode, a_split_that_fails_tells_what_header_there_is)
{
    struct fuse_in_header hdr;
    struct mf__msg msg;

    wire_sample(&w, FUSE_LOOKUP);
    memcpy(&hdr, w.bytes, sizeof(hdr));
    for (size_t n = 0; n < w.len; n++) {
        uint8_t *m = malloc(n ? n : 1);
        uint8_t want[HEAD] = { 0 };

        memcpy(m, w.bytes, n);
        memcpy(want, w.bytes, n < HEAD ? n : HEAD);
        memset(&msg, 0xa5, sizeof(msg));
        cr_expect_eq(mf__msg_split(&msg, m, n), -EPROTO, "%zu bytes", n);
        cr_expect_arr_eq(&msg.hdr, want, HEAD, "%zu bytes", n);
        cr_expect_eq(msg.args_len + msg.body_len + msg.ext_len, 0);
        cr_expect(msg.args && msg.body && msg.ext, "no bytes, but at an address");
        free(m);
    }
}

Test(wire_decode, extension_area_must_fit)
{
    struct fuse_in_header hdr;
    struct mf__msg msg;

    wire_sample(&w, FUSE_MKDIR); /* 8 bytes of structure, 6 of name */
    memcpy(&hdr, w.bytes, sizeof(hdr));
    for (uint32_t units = 0; units <= UINT16_MAX; units += units < 8 ? 1 : 4099) {
        bool fits = units * 8 <= w.len - HEAD;

        hdr.total_extlen = (uint16_t)units;
        memcpy(w.bytes, &hdr, sizeof(hdr));
        uint8_t *m = wire_heap(&w, w.len, 0);
        cr_expect_eq(mf__msg_split(&msg, m, w.len), fits ? 0 : -EPROTO, "%u units", units);
        if (fits)
            cr_expect_eq(HEAD + msg.args_len + msg.body_len + msg.ext_len, w.len);
        wire_free(m, 0);
    }
}

/* ---- truncation -------------------------------------------------------------------------------------- */

/* Messages of a fixed structure alone have an older, shorter form where opcode.def says so; no others have one. */
static bool is_shorter_form(uint32_t opcode, size_t args_len)
{
    const struct mf__opcode *row = mf__opcode(opcode);

    if (opcode == FUSE_INIT)
        return args_len == 8 || args_len == 16;
    if (opcode == FUSE_SETXATTR || args_len != row->args_least)
        return false;
    return row->args_least < row->args_size;
}

Test(wire_decode, every_opcode_at_every_truncation)
{
    unsigned opcodes = 0, accepted = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        if (!wire_sample(&w, nr))
            continue;
        opcodes++;
        cr_expect_eq(decode_with(&w, EXT), 0, "%s, whole", mf__opcode(nr)->name);
        for (size_t n = 0; n < w.len; n++) {
            uint8_t *m = wire_heap(&w, n, 0);
            struct mf_forget one;
            struct mf__msg msg;
            struct mf_call call;
            int rc = mf__msg_split(&msg, m, n);

            if (n < HEAD) {
                cr_expect_eq(rc, -EPROTO, "%s, %zu bytes", mf__opcode(nr)->name, n);
            } else {
                bool valid = is_shorter_form(nr, n - HEAD);

                cr_expect_eq(rc, 0, "%s, %zu bytes", mf__opcode(nr)->name, n);
                rc = mf__decode(&msg, EXT, &call, &one);
                cr_expect_eq(rc, valid ? 0 : -EPROTO, "%s, %zu bytes: %d", mf__opcode(nr)->name, n, rc);
                accepted += valid;
            }
            wire_free(m, 0);
        }
    }
    cr_expect_eq(opcodes, 51);
    cr_expect_eq(accepted, 12, "GETATTR, READ, READDIR(PLUS), RELEASE(DIR), FLUSH, three locks, INIT twice");
}

Test(wire_decode, short_forms_leave_the_rest_zero)
{
    struct wire whole;

    wire_sample(&whole, FUSE_READ);
    wire_start(&w, FUSE_READ);
    wire_args(&w, whole.bytes + HEAD, 24);
    uint8_t *m = wire_heap(&w, w.len, 0);
    struct fuse_read_in in = { 0 };
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;

    memcpy(&in, whole.bytes + HEAD, 24);
    cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
    cr_assert_eq(mf__decode(&msg, 0, &call, &one), 0);
    cr_expect_eq(call.offset, in.offset);
    cr_expect_eq(call.length, in.size);
    cr_expect_eq(call.lock_owner, 0);
    cr_expect_eq(call.flags, 0);
    wire_free(m, 0);
}

Test(wire_decode, longer_structures_of_a_later_protocol_are_accepted)
{
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        if (!wire_sample(&w, nr) || mf__opcode(nr)->names || w.len != HEAD + mf__opcode(nr)->args_size)
            continue;
        wire_data(&w, "12345678", 8);
        cr_expect_eq(decode_with(&w, EXT), 0, "%s", mf__opcode(nr)->name);
    }
}

/* ---- alignment --------------------------------------------------------------------------------------- */

/* The record, with pointers into the message made offsets, so that two can be compared. */
static void relative(struct mf_call *call, const uint8_t *from, size_t len, const struct mf_forget *one)
{
    const void **pointers[] = { (const void **)&call->name, (const void **)&call->name2, &call->data };

    for (int i = 0; i < 3; i++) {
        const uint8_t *p = *pointers[i];

        if (p >= from && p <= from + len)
            *pointers[i] = (const void *)(uintptr_t)(p - from + 1);
        else if (p == (const void *)one)
            *pointers[i] = (const void *)(uintptr_t)-1;
    }
}

Test(wire_decode, nothing_needs_alignment)
{
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        struct mf_call first = { 0 };

        if (!wire_sample(&w, nr))
            continue;
        for (size_t shift = 0; shift < 16; shift++) {
            uint8_t *m = wire_heap(&w, w.len, shift);
            struct mf_call call = { 0 };
            struct mf_forget one;
            struct mf__msg msg;

            cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
            cr_assert_eq(mf__decode(&msg, EXT, &call, &one), 0, "%s", mf__opcode(nr)->name);
            relative(&call, m, w.len, &one);
            if (shift == 0)
                first = call;
            cr_expect_arr_eq(&call, &first, sizeof(call), "%s at %zu", mf__opcode(nr)->name, shift);
            wire_free(m, shift);
        }
    }
}

/* ---- names ------------------------------------------------------------------------------------------- */

struct name_case {
    const char *bytes;
    size_t len;
    bool plain; /* a name in a directory */
    bool text;  /* a link's target, an xattr's name */
};

#define BYTES(s) s, sizeof(s) - 1

static const struct name_case names[] = {
    { BYTES("a\0"), true, true },
    { BYTES(".\0"), true, true },
    { BYTES("..\0"), true, true },
    { BYTES("\xff\xfe\n\0"), true, true },
    { BYTES("a name with blanks\0"), true, true },
    { BYTES("a/b\0"), false, true },
    { BYTES("/\0"), false, true },
    { BYTES("a/\0"), false, true },
    { BYTES(""), false, false },
    { BYTES("\0"), false, false },
    { BYTES("a"), false, false },
    { BYTES("a\0b"), false, false },
    { BYTES("a\0b\0"), false, false },
    { BYTES("a\0\0"), false, false },
    { BYTES("\0a\0"), false, false },
};

static void start_named(uint32_t opcode)
{
    wire_sample(&w, opcode);
    w.len = HEAD + mf__opcode(opcode)->args_size;
}

Test(wire_decode, names_in_directories)
{
    const uint32_t ops[] = { FUSE_LOOKUP, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_LINK, FUSE_CREATE };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++)
        for (size_t k = 0; k < MF__ARRAY_SIZE(names); k++) {
            start_named(ops[i]);
            wire_data(&w, names[k].bytes, names[k].len);
            cr_expect_eq(decode_with(&w, EXT), names[k].plain ? 0 : -EPROTO, "%s, case %zu", mf__opcode(ops[i])->name,
                         k);
        }
}

Test(wire_decode, names_of_xattrs)
{
    const uint32_t ops[] = { FUSE_GETXATTR, FUSE_REMOVEXATTR };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++)
        for (size_t k = 0; k < MF__ARRAY_SIZE(names); k++) {
            start_named(ops[i]);
            wire_data(&w, names[k].bytes, names[k].len);
            cr_expect_eq(decode_with(&w, EXT), names[k].text ? 0 : -EPROTO, "%s, case %zu", mf__opcode(ops[i])->name,
                         k);
        }
}

Test(wire_decode, second_names)
{
    const struct {
        uint32_t opcode;
        bool target;
    } ops[] = { { FUSE_RENAME, false }, { FUSE_RENAME2, false }, { FUSE_SYMLINK, true } };

    for (size_t i = 0; i < MF__ARRAY_SIZE(ops); i++)
        for (size_t k = 0; k < MF__ARRAY_SIZE(names); k++) {
            bool valid = ops[i].target ? names[k].text : names[k].plain;

            start_named(ops[i].opcode);
            wire_name(&w, "first");
            wire_data(&w, names[k].bytes, names[k].len);
            cr_expect_eq(decode_with(&w, EXT), valid ? 0 : -EPROTO, "%s, case %zu", mf__opcode(ops[i].opcode)->name, k);
            start_named(ops[i].opcode);
            wire_name(&w, "not/a/name");
            wire_name(&w, "second");
            cr_expect_eq(decode_with(&w, EXT), -EPROTO);
        }
}

Test(wire_decode, longest_name)
{
    char name[FUSE_NAME_MAX + 1];

    memset(name, 'n', FUSE_NAME_MAX);
    name[FUSE_NAME_MAX] = 0;
    wire_start(&w, FUSE_LOOKUP);
    wire_name(&w, name);
    expect_record(&w, 0, CALL(.op = MF_OP_LOOKUP, .name = name), "4095 bytes");
}

/* ---- ring entries ------------------------------------------------------------------------------------ */

Test(wire_decode, a_ring_entry_is_the_same_request)
{
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        struct mf_call device = { 0 }, ring = { 0 };
        struct mf_forget one;
        struct mf__msg msg;
        void *header, *payload;
        size_t payload_len;

        if (!wire_sample(&w, nr))
            continue;
        uint8_t *m = wire_heap(&w, w.len, 0);
        cr_assert_eq(mf__msg_split(&msg, m, w.len), 0);
        cr_assert_eq(mf__decode(&msg, EXT, &device, &one), 0);
        relative(&device, msg.body, msg.body_len, &one);
        wire_ring(&w, &header, &payload, &payload_len);
        cr_assert_eq(mf__msg_from_ring(&msg, header, payload, payload_len), 0, "%s", mf__opcode(nr)->name);
        cr_assert_eq(mf__decode(&msg, EXT, &ring, &one), 0, "%s", mf__opcode(nr)->name);
        relative(&ring, msg.body, msg.body_len, &one);
        cr_expect_arr_eq(&ring, &device, sizeof(ring), "%s", mf__opcode(nr)->name);
        wire_free(m, 0);
        free(header);
        free(payload);
    }
}

Test(wire_decode, a_ring_entry_with_setxattr_in_its_short_form)
{
    struct fuse_setxattr_in args = { .size = 5, .flags = 1 };
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;
    void *header, *payload;
    size_t payload_len;

    wire_start(&w, FUSE_SETXATTR);
    wire_args(&w, &args, FUSE_COMPAT_SETXATTR_IN_SIZE);
    wire_name(&w, "user.a");
    wire_data(&w, "value", 5);
    wire_ring(&w, &header, &payload, &payload_len);
    cr_assert_eq(payload_len, 12);
    cr_assert_eq(mf__msg_from_ring(&msg, header, payload, payload_len), 0);
    cr_assert_eq(mf__decode(&msg, 0, &call, &one), 0);
    cr_expect_str_eq(call.name, "user.a");
    cr_expect_arr_eq(call.data, "value", 5);
    cr_expect_eq(call.op_flags, 0, "the other half is what the last request left");
    free(header);
    free(payload);
}

Test(wire_decode, a_ring_entry_at_every_truncation_of_its_payload)
{
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++) {
        void *header, *payload;
        size_t payload_len;

        if (!wire_sample(&w, nr))
            continue;
        wire_ring(&w, &header, &payload, &payload_len);
        for (size_t n = 0; n < payload_len; n++) {
            uint8_t *part = malloc(n ? n : 1);
            struct mf_forget one;
            struct mf__msg msg;
            struct mf_call call;

            memcpy(part, payload, n);
            cr_expect_eq(mf__msg_from_ring(&msg, header, part, n), 0);
            cr_expect_eq(mf__decode(&msg, EXT, &call, &one), -EPROTO, "%s, %zu bytes", mf__opcode(nr)->name, n);
            free(part);
        }
        free(header);
        free(payload);
    }
}

Test(wire_decode, a_ring_entry_may_have_no_payload_at_all)
{
    struct fuse_uring_req_header header = { 0 };
    struct fuse_in_header hdr = { .len = HEAD, .opcode = FUSE_LOOKUP };
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;

    memcpy(header.in_out, &hdr, sizeof(hdr));
    cr_assert_eq(mf__msg_from_ring(&msg, &header, NULL, 0), 0);
    cr_expect_eq(mf__decode(&msg, EXT, &call, &one), -EPROTO);
    hdr.opcode = FUSE_STATFS;
    memcpy(header.in_out, &hdr, sizeof(hdr));
    cr_assert_eq(mf__msg_from_ring(&msg, &header, NULL, 0), 0);
    cr_expect_eq(mf__decode(&msg, EXT, &call, &one), 0);
}

Test(wire_decode, a_ring_entrys_extension_area_must_fit)
{
    struct fuse_uring_req_header header = { 0 };
    struct fuse_in_header hdr = { .len = HEAD + 8, .opcode = FUSE_LOOKUP, .total_extlen = 2 };
    uint8_t payload[16] = "x";
    struct mf__msg msg;

    memcpy(header.in_out, &hdr, sizeof(hdr));
    cr_expect_eq(mf__msg_from_ring(&msg, &header, payload, 15), -EPROTO);
    cr_expect_eq(mf__msg_from_ring(&msg, &header, payload, 16), 0);
    cr_expect_eq(msg.ext_len, 16);
    cr_expect_eq(msg.body_len, 0);
    cr_expect_eq(mf__msg_from_ring(&msg, &header, payload, 1ull << 32), -EPROTO);
}
