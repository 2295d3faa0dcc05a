/* SPDX-License-Identifier: MIT */
/* Answers, directory entries, notifications: byte for byte, into memory that has just their room. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "wire/wire.h"

/* Memory of exactly n bytes, one byte behind an aligned place and full of rubbish. */
static uint8_t *room(size_t n)
{
    uint8_t *p = malloc(n + 1);

    memset(p, 0xa5, n + 1);
    return p + 1;
}

static void expect_bytes(uint8_t *got, size_t got_len, const void *want, size_t want_len, const char *what)
{
    cr_assert_eq(got_len, want_len, "%s: %zu bytes, not %zu", what, got_len, want_len);
    cr_expect_arr_eq(got, want, want_len, "%s", what);
    free(got - 1);
}

#define EXPECT_PUT(want, call)                              \
    do {                                                    \
        uint8_t *dst = room(sizeof(want));                  \
        size_t n = call;                                    \
                                                            \
        expect_bytes(dst, n, &(want), sizeof(want), #call); \
    } while (0)

static const struct mf_attr attr = { .ino = 1,
                                     .size = 2,
                                     .blocks = 3,
                                     .atime = -4,
                                     .mtime = 5,
                                     .ctime = 6,
                                     .atimensec = 7,
                                     .mtimensec = 8,
                                     .ctimensec = 9,
                                     .mode = S_IFREG | 0644,
                                     .nlink = 10,
                                     .uid = 11,
                                     .gid = 12,
                                     .rdev = 13,
                                     .blksize = 14,
                                     .flags = 15 };

static const struct fuse_attr kernel_attr = { .ino = 1,
                                              .size = 2,
                                              .blocks = 3,
                                              .atime = (uint64_t)-4,
                                              .mtime = 5,
                                              .ctime = 6,
                                              .atimensec = 7,
                                              .mtimensec = 8,
                                              .ctimensec = 9,
                                              .mode = S_IFREG | 0644,
                                              .nlink = 10,
                                              .uid = 11,
                                              .gid = 12,
                                              .rdev = 13,
                                              .blksize = 14,
                                              .flags = 15 };

static struct mf_entry entry(void)
{
    return (struct mf_entry){ .size = sizeof(struct mf_entry),
                              .node = 20,
                              .generation = 21,
                              .entry_timeout_ns = 22 * MF_SECOND + 23,
                              .attr_timeout_ns = 24 * MF_SECOND + 999999999,
                              .attr = attr };
}

static struct fuse_entry_out kernel_entry(void)
{
    return (struct fuse_entry_out){ .nodeid = 20,
                                    .generation = 21,
                                    .entry_valid = 22,
                                    .entry_valid_nsec = 23,
                                    .attr_valid = 24,
                                    .attr_valid_nsec = 999999999,
                                    .attr = kernel_attr };
}

/* ---- answers ----------------------------------------------------------------------------------------- */

Test(wire_encode, entry)
{
    struct fuse_entry_out want = kernel_entry();
    struct mf_entry e = entry();

    EXPECT_PUT(want, mf__put_entry(dst, &e));
    e.attr.ino = 0;
    want.attr.ino = 20;
    EXPECT_PUT(want, mf__put_entry(dst, &e));
    e.entry_timeout_ns = UINT64_MAX;
    want.entry_valid = 18446744073;
    want.entry_valid_nsec = 709551615;
    EXPECT_PUT(want, mf__put_entry(dst, &e));
}

Test(wire_encode, attr)
{
    struct fuse_attr_out want = { .attr_valid = 1, .attr_valid_nsec = 500000000, .attr = kernel_attr };
    struct mf_attr a = attr;

    EXPECT_PUT(want, mf__put_attr(dst, 1500000000, 99, &a));
    a.ino = 0;
    want.attr.ino = 99;
    EXPECT_PUT(want, mf__put_attr(dst, 1500000000, 99, &a));
}

Test(wire_encode, open)
{
    struct fuse_open_out want = { .fh = 0xfedcba9876543210, .open_flags = 0x100, .backing_id = -3 };

    EXPECT_PUT(want, mf__put_open(dst, 0xfedcba9876543210, 0x100, -3));
}

Test(wire_encode, statfs)
{
    struct fuse_statfs_out want = {
        .st = { .blocks = 1, .bfree = 2, .bavail = 3, .files = 4, .ffree = 5, .bsize = 6, .namelen = 7, .frsize = 8 }
    };
    struct mf_statfs st = { .size = sizeof(st),
                            .blocks = 1,
                            .bfree = 2,
                            .bavail = 3,
                            .files = 4,
                            .ffree = 5,
                            .bsize = 6,
                            .namelen = 7,
                            .frsize = 8,
                            .reserved = 9,
                            .reserved2 = 10 };

    EXPECT_PUT(want, mf__put_statfs(dst, &st));
}

Test(wire_encode, small_answers)
{
    struct fuse_write_out write = { .size = 4096 };
    struct fuse_getxattr_out xattr = { .size = 65536 };
    struct fuse_lk_out lk = { .lk = { .start = 1, .end = 2, .type = 3, .pid = 4 } };
    struct mf_lock lock = { .start = 1, .end = 2, .type = 3, .pid = 4 };
    struct fuse_lseek_out lseek = { .offset = 1ull << 40 };
    struct fuse_bmap_out bmap = { .block = 1ull << 41 };
    struct fuse_poll_out poll = { .revents = 5 };
    struct fuse_copy_file_range_out copy = { .bytes_copied = 1ull << 42 };
    struct fuse_ioctl_out ioctl = { .result = -7, .flags = 4, .in_iovs = 2, .out_iovs = 3 };

    EXPECT_PUT(write, mf__put_write(dst, 4096));
    EXPECT_PUT(xattr, mf__put_xattr_size(dst, 65536));
    EXPECT_PUT(lk, mf__put_lk(dst, &lock));
    EXPECT_PUT(lseek, mf__put_lseek(dst, 1ull << 40));
    EXPECT_PUT(bmap, mf__put_bmap(dst, 1ull << 41));
    EXPECT_PUT(poll, mf__put_poll(dst, 5));
    EXPECT_PUT(copy, mf__put_copy64(dst, 1ull << 42));
    EXPECT_PUT(ioctl, mf__put_ioctl(dst, -7, 4, 2, 3));
}

Test(wire_encode, statx)
{
    struct fuse_statx sx = { .mask = 0xfff, .mode = S_IFREG, .btime = { .tv_sec = -1, .tv_nsec = 2 }, .dev_minor = 3 };
    struct fuse_statx_out want = { .attr_valid = 1, .attr_valid_nsec = 1, .stat = sx };

    EXPECT_PUT(want, mf__put_statx(dst, MF_SECOND + 1, &sx));
}

Test(wire_encode, init_is_as_long_as_the_kernel_knows)
{
    static const struct {
        uint32_t minor;
        size_t len;
    } cases[] = { { 0, 8 }, { 4, 8 }, { 5, 24 }, { 22, 24 }, { 23, 64 }, { 45, 64 }, { 99, 64 } };
    struct fuse_init_out out = { .major = 7,
                                 .minor = 45,
                                 .max_readahead = 1,
                                 .flags = 2,
                                 .max_background = 3,
                                 .congestion_threshold = 4,
                                 .max_write = 5,
                                 .time_gran = 6,
                                 .max_pages = 7,
                                 .map_alignment = 8,
                                 .flags2 = 9,
                                 .max_stack_depth = 10,
                                 .request_timeout = 11,
                                 .unused = { 12 } };

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        uint8_t *dst = room(cases[i].len);

        expect_bytes(dst, mf__put_init(dst, &out, cases[i].minor), &out, cases[i].len, "init");
    }
}

Test(wire_encode, header)
{
    struct fuse_out_header want = { .len = 16 + 88, .error = 0, .unique = 1ull << 63 | 8 };
    uint8_t *dst = room(sizeof(want));

    mf__put_header(dst, 88, 0, 1ull << 63 | 8);
    expect_bytes(dst, sizeof(want), &want, sizeof(want), "success");
    want = (struct fuse_out_header){ .len = 16, .error = -ENOENT, .unique = 8 };
    dst = room(sizeof(want));
    mf__put_header(dst, 0, -ENOENT, 8);
    expect_bytes(dst, sizeof(want), &want, sizeof(want), "error");
}

/* ---- what may be given ------------------------------------------------------------------------------- */

Test(wire_encode, types_of_nodes)
{
    for (uint32_t type = 0; type < 16; type++) {
        struct mf_attr a = { .mode = type << 12 | 07777 };
        mode_t mode = (mode_t)a.mode;
        bool valid = S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) ||
                     S_ISFIFO(mode) || S_ISSOCK(mode);

        cr_expect_eq(mf__check_attr(&a), valid ? 0 : -EINVAL, "%o", a.mode);
    }
}

Test(wire_encode, sizes_and_times)
{
    struct mf_attr a = attr;

    cr_expect_eq(mf__check_attr(&a), 0);
    a.size = INT64_MAX;
    cr_expect_eq(mf__check_attr(&a), 0);
    a.size++;
    cr_expect_eq(mf__check_attr(&a), -EINVAL);
    for (int i = 0; i < 3; i++) {
        a = attr;
        uint32_t *ns = i == 0 ? &a.atimensec : i == 1 ? &a.mtimensec : &a.ctimensec;
        *ns = 999999999;
        cr_expect_eq(mf__check_attr(&a), 0);
        *ns = 1000000000;
        cr_expect_eq(mf__check_attr(&a), -EINVAL);
    }
}

Test(wire_encode, entries)
{
    struct mf_entry e = entry();

    cr_expect_eq(mf__check_entry(&e, true), 0);
    cr_expect_eq(mf__check_entry(&e, false), 0);
    e.attr.mode = 0644;
    cr_expect_eq(mf__check_entry(&e, true), -EINVAL, "no type");
    e.node = 0;
    cr_expect_eq(mf__check_entry(&e, true), 0, "nothing found: attributes do not matter");
    cr_expect_eq(mf__check_entry(&e, false), -EINVAL, "what was made is something");
    e.node = FUSE_ROOT_ID;
    e.generation = 0;
    e.attr.mode = S_IFDIR | 0755;
    cr_expect_eq(mf__check_entry(&e, true), 0, "the root is found at ..");
    cr_expect_eq(mf__check_entry(&e, false), -EINVAL, "the root is never made");
    e.generation = 1;
    cr_expect_eq(mf__check_entry(&e, true), -EINVAL, "there is one root");
}

Test(wire_encode, names)
{
    char name[FUSE_NAME_MAX + 1];

    memset(name, 'n', sizeof(name));
    cr_expect_eq(mf__check_name("a", 1), 0);
    cr_expect_eq(mf__check_name("..", 2), 0);
    cr_expect_eq(mf__check_name(name, FUSE_NAME_MAX), 0);
    cr_expect_eq(mf__check_name(name, FUSE_NAME_MAX + 1), -EINVAL);
    cr_expect_eq(mf__check_name("", 0), -EINVAL);
    cr_expect_eq(mf__check_name("/", 1), -EINVAL);
    cr_expect_eq(mf__check_name("ab/", 3), -EINVAL);
    cr_expect_eq(mf__check_name("a\0b", 3), -EINVAL);
    cr_expect_eq(mf__check_name("a", 2), -EINVAL, "the NUL is not counted");
}

/* ---- directory entries ------------------------------------------------------------------------------- */

Test(wire_encode, dirents_of_each_length)
{
    const char *name = "a name that has thirty-odd byte";

    for (uint64_t len = 1; len <= strlen(name); len++) {
        size_t total = (24 + len + 7) / 8 * 8;
        struct fuse_dirent head = { .ino = 5, .off = 6, .namelen = (uint32_t)len, .type = 4 };
        uint8_t want[64] = { 0 };
        uint8_t *dst = room(total);

        memcpy(want, &head, sizeof(head));
        memcpy(want + sizeof(head), name, len);
        for (size_t r = 0; r < total; r++)
            cr_expect_eq(mf__put_dirent(dst, r, name, len, 5, S_IFDIR, 6), -ENOSPC, "room %zu", r);
        cr_expect_eq(dst[0], 0xa5, "nothing is written where there is no room");
        int64_t n = mf__put_dirent(dst, total, name, len, 5, S_IFDIR, 6);
        expect_bytes(dst, (size_t)n, want, total, "dirent");
    }
}

Test(wire_encode, dirents_of_each_type)
{
    static const struct {
        uint32_t mode;
        uint32_t type;
    } cases[] = { { 0, 0 },       { S_IFIFO, 1 }, { S_IFCHR, 2 },  { S_IFDIR | 0755, 4 },
                  { S_IFBLK, 6 }, { S_IFREG, 8 }, { S_IFLNK, 10 }, { S_IFSOCK, 12 } };
    struct fuse_dirent out;
    uint8_t dst[32];

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        cr_assert_eq(mf__put_dirent(dst, sizeof(dst), "x", 1, 1, cases[i].mode, 1), 32);
        memcpy(&out, dst, sizeof(out));
        cr_expect_eq(out.type, cases[i].type, "%o", cases[i].mode);
    }
}

Test(wire_encode, direntplus)
{
    struct mf_entry e = entry();
    struct fuse_direntplus head = { .entry_out = kernel_entry(),
                                    .dirent = { .ino = 1, .off = 6, .namelen = 3, .type = 8 } };
    uint8_t want[160] = { 0 };
    uint8_t *dst = room(sizeof(want));

    memcpy(want, &head, sizeof(head));
    memcpy(want + sizeof(head), "abc", 3);
    for (size_t r = 0; r < sizeof(want); r++)
        cr_expect_eq(mf__put_direntplus(dst, r, "abc", 3, &e, 6), -ENOSPC, "room %zu", r);
    cr_expect_eq(dst[0], 0xa5);
    int64_t n = mf__put_direntplus(dst, sizeof(want), "abc", 3, &e, 6);
    expect_bytes(dst, (size_t)n, want, sizeof(want), "direntplus");
}

Test(wire_encode, direntplus_inode_numbers)
{
    struct mf_entry e = entry();
    struct fuse_direntplus out;
    uint8_t dst[160];

    e.attr.ino = 0;
    cr_assert_eq(mf__put_direntplus(dst, sizeof(dst), "abc", 3, &e, 6), 160);
    memcpy(&out, dst, sizeof(out));
    cr_expect_eq(out.dirent.ino, 20, "the node where there is no other number");
    cr_expect_eq(out.entry_out.attr.ino, 20);
    e.node = 0;
    e.attr = (struct mf_attr){ .ino = 9, .mode = S_IFDIR };
    cr_assert_eq(mf__put_direntplus(dst, sizeof(dst), "abc", 3, &e, 6), 160, "an entry without a node");
    memcpy(&out, dst, sizeof(out));
    cr_expect_eq(out.entry_out.nodeid, 0);
    cr_expect_eq(out.dirent.ino, 9);
    cr_expect_eq(out.dirent.type, 4);
}

Test(wire_encode, dirents_refuse_what_the_kernel_would)
{
    struct mf_entry e = entry();
    uint8_t dst[8192];
    char name[FUSE_NAME_MAX + 1];

    memset(name, 'n', sizeof(name));
    cr_expect_eq(mf__put_dirent(dst, sizeof(dst), "a/b", 3, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf__put_dirent(dst, sizeof(dst), "", 0, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf__put_dirent(dst, sizeof(dst), name, sizeof(name), 1, 0, 1), -EINVAL);
    cr_expect_eq(mf__put_dirent(dst, sizeof(dst), name, UINT64_MAX - 8, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf__put_dirent(dst, sizeof(dst), name, FUSE_NAME_MAX, 1, 0, 1), 4120);
    cr_expect_eq(mf__put_direntplus(dst, sizeof(dst), "a/b", 3, &e, 1), -EINVAL);
    e.attr.mode = 0;
    cr_expect_eq(mf__put_direntplus(dst, sizeof(dst), "ab", 2, &e, 1), -EINVAL);
    cr_expect_eq(mf__put_direntplus(dst, 0, "ab", 2, &e, 1), -EINVAL, "the error that more room does not cure");
}

/* ---- notifications ----------------------------------------------------------------------------------- */

/* A notification as it should be, and each room that is too small for it. */
#define EXPECT_NOTIFY(code, body, tail, call)                                                                     \
    do {                                                                                                          \
        struct fuse_out_header head = { .len = (uint32_t)(16 + sizeof(body) + sizeof(tail) - 1), .error = code }; \
        uint8_t want[256] = { 0 };                                                                                \
        uint8_t *dst = room(head.len);                                                                            \
        size_t r;                                                                                                 \
                                                                                                                  \
        memcpy(want, &head, 16);                                                                                  \
        memcpy(want + 16, &(body), sizeof(body));                                                                 \
        memcpy(want + 16 + sizeof(body), tail, sizeof(tail) - 1);                                                 \
        for (r = 0; r < head.len; r++)                                                                            \
            cr_expect_eq(call, -ENOSPC, #call ", room %zu", r);                                                   \
        expect_bytes(dst, (size_t)(call), want, head.len, #call);                                                 \
    } while (0)

Test(wire_encode, notify_of_one_structure)
{
    struct fuse_notify_inval_inode_out inode = { .ino = 5, .off = -1, .len = -2 };
    struct fuse_notify_poll_wakeup_out poll = { .kh = 6 };
    struct fuse_notify_retrieve_out retrieve = { .notify_unique = 1, .nodeid = 2, .offset = 3, .size = 4 };

    EXPECT_NOTIFY(FUSE_NOTIFY_INVAL_INODE, inode, "", mf__put_notify_inval_inode(dst, r, 5, -1, -2));
    EXPECT_NOTIFY(FUSE_NOTIFY_POLL, poll, "", mf__put_notify_poll(dst, r, 6));
    EXPECT_NOTIFY(FUSE_NOTIFY_RETRIEVE, retrieve, "", mf__put_notify_retrieve(dst, r, 1, 2, 3, 4));
}

Test(wire_encode, notify_with_a_name)
{
    struct fuse_notify_inval_entry_out entry_out = { .parent = 5, .namelen = 3, .flags = FUSE_EXPIRE_ONLY };
    struct fuse_notify_delete_out delete_out = { .parent = 5, .child = 6, .namelen = 3 };
    uint8_t buf[128];

    EXPECT_NOTIFY(FUSE_NOTIFY_INVAL_ENTRY, entry_out, "abc\0",
                  mf__put_notify_inval_entry(dst, r, 5, "abcdef", 3, FUSE_EXPIRE_ONLY));
    EXPECT_NOTIFY(FUSE_NOTIFY_DELETE, delete_out, "abc\0", mf__put_notify_delete(dst, r, 5, 6, "abcdef", 3));
    cr_expect_eq(mf__put_notify_inval_entry(buf, sizeof(buf), 5, "a/b", 3, 0), -EINVAL);
    cr_expect_eq(mf__put_notify_inval_entry(buf, sizeof(buf), 5, "", 0, 0), -EINVAL);
    cr_expect_eq(mf__put_notify_delete(buf, sizeof(buf), 5, 6, "a/b", 3), -EINVAL);
    cr_expect_eq(mf__put_notify_delete(buf, sizeof(buf), 5, 6, "", 0), -EINVAL);
}

Test(wire_encode, notify_store_counts_the_data_that_follow)
{
    struct fuse_notify_store_out body = { .nodeid = 5, .offset = 6, .size = 1000 };
    struct fuse_out_header head = { .len = 40 + 1000, .error = FUSE_NOTIFY_STORE };
    uint8_t want[40];
    uint8_t *dst = room(40);

    memcpy(want, &head, 16);
    memcpy(want + 16, &body, 24);
    for (size_t r = 0; r < 40; r++)
        cr_expect_eq(mf__put_notify_store_head(dst, r, 5, 6, 1000), -ENOSPC);
    cr_expect_eq(mf__put_notify_store_head(dst, 40, 5, 6, UINT32_MAX), -EINVAL, "the length is a 32-bit number");
    cr_expect_eq(dst[0], 0xa5);
    int64_t n = mf__put_notify_store_head(dst, 40, 5, 6, 1000);
    expect_bytes(dst, (size_t)n, want, 40, "store");
}

Test(wire_encode, notify_prune)
{
    const uint64_t nodes[] = { 0x6161616161616161, 0x6262626262626262 };
    struct fuse_notify_prune_out two = { .count = 2 }, none = { .count = 0 };
    uint8_t buf[64];

    EXPECT_NOTIFY(FUSE_NOTIFY_PRUNE, two, "aaaaaaaabbbbbbbb", mf__put_notify_prune(dst, r, nodes, 2));
    EXPECT_NOTIFY(FUSE_NOTIFY_PRUNE, none, "", mf__put_notify_prune(dst, r, nodes, 0));
    cr_expect_eq(mf__put_notify_prune(buf, sizeof(buf), nodes, UINT32_MAX), -ENOSPC);
    cr_expect_eq(mf__put_notify_prune(buf, SIZE_MAX, nodes, UINT32_MAX), -EINVAL, "the length is a 32-bit number");
}

Test(wire_encode, notify_without_a_body)
{
    const int32_t codes[] = { FUSE_NOTIFY_RESEND, FUSE_NOTIFY_INC_EPOCH };
    uint8_t dst[16];

    for (int i = 0; i < 2; i++) {
        struct fuse_out_header want = { .len = 16, .error = codes[i] };

        cr_expect_eq(mf__put_notify_plain(dst, 15, codes[i]), -ENOSPC);
        cr_expect_eq(mf__put_notify_plain(dst, 16, codes[i]), 16);
        cr_expect_arr_eq(dst, &want, 16);
    }
    cr_expect_eq(mf__put_notify_plain(dst, 16, FUSE_NOTIFY_STORE), -EINVAL);
    cr_expect_eq(mf__put_notify_plain(dst, 16, 0), -EINVAL);
    cr_expect_eq(mf__put_notify_plain(dst, 16, -5), -EINVAL);
}
