/* SPDX-License-Identifier: MIT */
/* Answers: each kind on the wire, each wrong one refused, and the answers that C gives in a handler's place. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"
#include "wire_message.h"

#define ALL_OPS UINT64_MAX

/* One request, handled on the test's thread by `script`. */
struct asked {
    int rc; /* the caller's */
    uint64_t len;
    union {
        uint8_t bytes[1u << 18];
        struct fuse_entry_out entry;
        struct fuse_attr_out attr;
        struct fuse_open_out open;
        struct {
            struct fuse_entry_out entry;
            struct fuse_open_out open;
        } create;
        struct fuse_write_out write;
        struct fuse_statfs_out statfs;
        struct fuse_getxattr_out xattr;
        struct fuse_lseek_out lseek;
        struct fuse_lk_out lk;
        struct fuse_copy_file_range_out copy;
    } body;
};

static struct fs_rig rig;
static struct asked got;
static int reply_rc; /* what mf_reply_* returned to the script */

static void setup(void)
{
    fs_init(&rig);
    rig.implemented = ALL_OPS;
    rig.opts.want = FUSE_SETXATTR_EXT; /* as the samples have it */
    fs_step_init(&rig, 1);
}

TestSuite(session_reply, .init = setup, .timeout = 30);

static void ask(uint32_t opcode, const void *in, size_t len, fs_script script)
{
    uint64_t id = fs_send(&rig, opcode, 7, in, len);

    rig.script = script;
    reply_rc = 1;
    fs_step(&rig, 0);
    memset(&got, 0xee, sizeof(got));
    got.len = sizeof(got.body);
    got.rc = mf_client_wait(rig.vk, id, got.body.bytes, &got.len);
}

/* The well-formed message of an opcode. */
static void ask_sample(uint32_t opcode, fs_script script)
{
    static struct wire w;

    cr_assert(wire_sample(&w, opcode));
    ask(opcode, w.bytes + sizeof(struct fuse_in_header), w.len - sizeof(struct fuse_in_header), script);
}

static void ask_read(uint32_t size, fs_script script)
{
    struct fuse_read_in in = { .fh = 1, .size = size };

    ask(FUSE_READ, &in, sizeof(in), script);
}

static void ask_xattr(uint32_t size, fs_script script)
{
    struct {
        struct fuse_getxattr_in in;
        char name[8];
    } m = { .in = { .size = size }, .name = "user.ab" };

    ask(FUSE_GETXATTR, &m, sizeof(m), script);
}

/* ---- the kinds ------------------------------------------------------------------------------------------ */

static struct mf_attr attr_of_file(void)
{
    return (struct mf_attr){ .ino = 77,
                             .size = 1234,
                             .blocks = 3,
                             .atime = -1,
                             .mtime = 2,
                             .ctime = 3,
                             .atimensec = 4,
                             .mtimensec = 5,
                             .ctimensec = 6,
                             .nlink = 7,
                             .mode = S_IFREG | 0640,
                             .uid = 8,
                             .gid = 9,
                             .rdev = 10,
                             .blksize = 512,
                             .flags = 0 };
}

static struct mf_entry entry_of_file(void)
{
    return (struct mf_entry){ .size = sizeof(struct mf_entry),
                              .node = 77,
                              .generation = 5,
                              .entry_timeout_ns = 2 * MF_SECOND + 3,
                              .attr_timeout_ns = 4 * MF_SECOND + 5,
                              .attr = attr_of_file() };
}

static const struct mf_open an_open = { .size = sizeof(an_open), .flags = MF_OPEN_DIRECT_IO, .fh = 99 };

static int32_t reply_entry(struct mf_call *c, struct fs_rig *r)
{
    struct mf_entry e = entry_of_file();

    (void)r;
    reply_rc = mf_reply_entry(c->req, &e);
    return MF_ANSWERED;
}

static int32_t reply_attr(struct mf_call *c, struct fs_rig *r)
{
    struct mf_attr a = attr_of_file();

    (void)r;
    reply_rc = mf_reply_attr(c->req, &a, 3 * MF_SECOND + 7);
    return MF_ANSWERED;
}

static int32_t reply_open(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_open(c->req, &an_open);
    return MF_ANSWERED;
}

static int32_t reply_create(struct mf_call *c, struct fs_rig *r)
{
    struct mf_entry e = entry_of_file();

    (void)r;
    reply_rc = mf_reply_create(c->req, &e, &an_open);
    return MF_ANSWERED;
}

static int32_t reply_data(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_data(c->req, "abc", 3);
    return MF_ANSWERED;
}

static int32_t reply_buffer(struct mf_call *c, struct fs_rig *r)
{
    uint64_t room;
    char *buf = mf_req_buffer(c->req, &room);

    (void)r;
    if (buf)
        memcpy(buf, "defg", 4);
    reply_rc = mf_reply_buffer(c->req, 4);
    return MF_ANSWERED;
}

static int32_t reply_fd(struct mf_call *c, struct fs_rig *r)
{
    int fd = memfd_create("data", MFD_CLOEXEC);

    (void)r;
    cr_assert_eq(write(fd, "0123456789", 10), 10);
    reply_rc = mf_reply_fd(c->req, fd, 6, 100);
    close(fd);
    return MF_ANSWERED;
}

static int32_t reply_write(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_write(c->req, 11);
    return MF_ANSWERED;
}

static int32_t reply_statfs(struct mf_call *c, struct fs_rig *r)
{
    struct mf_statfs st = { .size = sizeof(st),
                            .blocks = 1,
                            .bfree = 2,
                            .bavail = 3,
                            .files = 4,
                            .ffree = 5,
                            .bsize = 6,
                            .namelen = 7,
                            .frsize = 8 };

    (void)r;
    reply_rc = mf_reply_statfs(c->req, &st);
    return MF_ANSWERED;
}

static int32_t reply_xattr_size(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_xattr_size(c->req, 321);
    return MF_ANSWERED;
}

static int32_t reply_lseek(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_lseek(c->req, 1ull << 40);
    return MF_ANSWERED;
}

static int32_t reply_lock(struct mf_call *c, struct fs_rig *r)
{
    struct mf_lock lock = { .start = 1, .end = 2, .type = F_WRLCK, .pid = 4 };

    (void)r;
    reply_rc = mf_reply_lock(c->req, &lock);
    return MF_ANSWERED;
}

static int32_t reply_dirents(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_dirents(c->req);
    return MF_ANSWERED;
}

static int32_t reply_success(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_err(c->req, 0);
    return MF_ANSWERED;
}

static int32_t reply_eperm(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_err(c->req, EPERM);
    return MF_ANSWERED;
}

static void expect_attr(const struct fuse_attr *a)
{
    struct mf_attr want = attr_of_file();

    cr_expect_eq(memcmp(a, &want, sizeof(want)), 0);
}

FS_TEST(session_reply, entry)
{
    ask(FUSE_LOOKUP, "x", 2, reply_entry);
    cr_expect_eq(reply_rc, 0);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 128);
    cr_expect_eq(got.body.entry.nodeid, 77);
    cr_expect_eq(got.body.entry.generation, 5);
    cr_expect_eq(got.body.entry.entry_valid, 2);
    cr_expect_eq(got.body.entry.entry_valid_nsec, 3);
    cr_expect_eq(got.body.entry.attr_valid, 4);
    cr_expect_eq(got.body.entry.attr_valid_nsec, 5);
    expect_attr(&got.body.entry.attr);
}

FS_TEST(session_reply, attr)
{
    ask_sample(FUSE_GETATTR, reply_attr);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 104);
    cr_expect_eq(got.body.attr.attr_valid, 3);
    cr_expect_eq(got.body.attr.attr_valid_nsec, 7);
    expect_attr(&got.body.attr.attr);
}

FS_TEST(session_reply, open_and_create)
{
    ask_sample(FUSE_OPEN, reply_open);
    cr_assert_eq(got.len, 16);
    cr_expect_eq(got.body.open.fh, 99);
    cr_expect_eq(got.body.open.open_flags, FOPEN_DIRECT_IO);
    ask_sample(FUSE_CREATE, reply_create);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 144);
    cr_expect_eq(got.body.create.entry.nodeid, 77);
    expect_attr(&got.body.create.entry.attr);
    cr_expect_eq(got.body.create.open.fh, 99);
}

FS_TEST(session_reply, data)
{
    ask_read(10, reply_data);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 3);
    cr_expect_arr_eq(got.body.bytes, "abc", 3);
    ask_read(10, reply_buffer);
    cr_assert_eq(got.len, 4);
    cr_expect_arr_eq(got.body.bytes, "defg", 4);
    ask_read(10, reply_fd);
    cr_assert_eq(got.len, 4, "a descriptor's end is the answer's end");
    cr_expect_arr_eq(got.body.bytes, "6789", 4);
    ask_read(2, reply_fd);
    cr_assert_eq(got.len, 2, "no more than was asked for");
    cr_expect_arr_eq(got.body.bytes, "67", 2);
    ask_sample(FUSE_READLINK, reply_data);
    cr_assert_eq(got.len, 3);
}

FS_TEST(session_reply, single_values)
{
    ask_sample(FUSE_WRITE, reply_write);
    cr_assert_eq(got.len, 8);
    cr_expect_eq(got.body.write.size, 11);
    ask_sample(FUSE_STATFS, reply_statfs);
    cr_assert_eq(got.len, 80);
    cr_expect_eq(got.body.statfs.st.blocks, 1);
    cr_expect_eq(got.body.statfs.st.bfree, 2);
    cr_expect_eq(got.body.statfs.st.bavail, 3);
    cr_expect_eq(got.body.statfs.st.files, 4);
    cr_expect_eq(got.body.statfs.st.ffree, 5);
    cr_expect_eq(got.body.statfs.st.bsize, 6);
    cr_expect_eq(got.body.statfs.st.namelen, 7);
    cr_expect_eq(got.body.statfs.st.frsize, 8);
    ask_sample(FUSE_LSEEK, reply_lseek);
    cr_assert_eq(got.len, 8);
    cr_expect_eq(got.body.lseek.offset, 1ull << 40);
    ask_sample(FUSE_GETLK, reply_lock);
    cr_assert_eq(got.len, 24);
    cr_expect_eq(got.body.lk.lk.type, F_WRLCK);
    cr_expect_eq(got.body.lk.lk.pid, 4);
    ask_sample(FUSE_UNLINK, reply_success);
    cr_expect_eq(got.rc, 0);
    cr_expect_eq(got.len, 0);
    ask_sample(FUSE_COPY_FILE_RANGE_64, reply_write);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 8);
    cr_expect_eq(got.body.copy.bytes_copied, 11);
}

FS_TEST(session_reply, xattr_values_and_sizes)
{
    ask_xattr(0, reply_xattr_size);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 8);
    cr_expect_eq(got.body.xattr.size, 321);
    ask_xattr(0, reply_data);
    cr_assert_eq(got.len, 8, "a value where its size was asked for");
    cr_expect_eq(got.body.xattr.size, 3);
    ask_xattr(3, reply_data);
    cr_assert_eq(got.len, 3);
    ask_xattr(2, reply_data);
    cr_expect_eq(got.rc, -ERANGE, "%d", got.rc);
    ask_xattr(9, reply_xattr_size);
    cr_expect_eq(got.rc, -EIO);
    cr_expect_eq(reply_rc, -EINVAL);
}

FS_TEST(session_reply, errors)
{
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);

        if (!row->slot || row->reply == MF__REPLY_NEVER)
            continue;
        ask_sample(opcode, reply_eperm);
        cr_expect_eq(reply_rc, 0, "%s", row->name);
        cr_expect_eq(got.rc, -EPERM, "%s: %d", row->name, got.rc);
        cr_expect_eq(got.len, 0);
    }
}

/* ---- each operation takes its own kind of answer ---------------------------------------------------- */

enum {
    TAKES_ENTRY,
    TAKES_ATTR,
    TAKES_OPEN,
    TAKES_CREATE,
    TAKES_DATA,
    TAKES_BUFFER,
    TAKES_FD,
    TAKES_WRITE,
    TAKES_STATFS,
    TAKES_XATTR,
    TAKES_LSEEK,
    TAKES_LOCK,
    TAKES_DIRENTS,
    TAKES_SUCCESS,
    TAKES
};

static const fs_script scripts[TAKES] = {
    [TAKES_ENTRY] = reply_entry,     [TAKES_ATTR] = reply_attr,
    [TAKES_OPEN] = reply_open,       [TAKES_CREATE] = reply_create,
    [TAKES_DATA] = reply_data,       [TAKES_BUFFER] = reply_buffer,
    [TAKES_FD] = reply_fd,           [TAKES_WRITE] = reply_write,
    [TAKES_STATFS] = reply_statfs,   [TAKES_XATTR] = reply_xattr_size,
    [TAKES_LSEEK] = reply_lseek,     [TAKES_LOCK] = reply_lock,
    [TAKES_DIRENTS] = reply_dirents, [TAKES_SUCCESS] = reply_success,
};

static unsigned taken_by(uint32_t opcode)
{
    const unsigned data = 1u << TAKES_DATA | 1u << TAKES_BUFFER;

    switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_LINK: return 1u << TAKES_ENTRY;
    case FUSE_GETATTR:
    case FUSE_SETATTR: return 1u << TAKES_ATTR;
    case FUSE_OPEN:
    case FUSE_OPENDIR: return 1u << TAKES_OPEN;
    case FUSE_CREATE:
    case FUSE_TMPFILE: return 1u << TAKES_CREATE;
    case FUSE_READ: return data | 1u << TAKES_FD | 1u << TAKES_DIRENTS | 1u << TAKES_SUCCESS;
    case FUSE_READLINK:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: return data | 1u << TAKES_DIRENTS | 1u << TAKES_SUCCESS;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR: return data | 1u << TAKES_DIRENTS; /* no bytes: an empty value */
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64: return 1u << TAKES_WRITE;
    case FUSE_STATFS: return 1u << TAKES_STATFS;
    case FUSE_LSEEK: return 1u << TAKES_LSEEK;
    case FUSE_GETLK: return 1u << TAKES_LOCK;
    case FUSE_BMAP:
    case FUSE_IOCTL:
    case FUSE_POLL:
    case FUSE_STATX: return 0; /* not offered yet */
    default: return 1u << TAKES_SUCCESS;
    }
}

FS_TEST(session_reply, an_answer_of_another_kind_becomes_eio)
{
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);

        if (!row->slot || row->reply == MF__REPLY_NEVER)
            continue;
        for (unsigned kind = 0; kind < TAKES; kind++) {
            bool takes = taken_by(opcode) >> kind & 1;

            ask_sample(opcode, scripts[kind]);
            cr_expect_eq(reply_rc, takes ? 0 : -EINVAL, "%s, answer %u: mf_reply gives %d", row->name, kind, reply_rc);
            cr_expect_eq(got.rc, takes ? 0 : -EIO, "%s, answer %u: caller gets %d", row->name, kind, got.rc);
        }
    }
    cr_expect(fs_logged(&rig, "answered with EIO") > 0);
}

/* ---- answers by return value ------------------------------------------------------------------------ */

static int32_t answer_all(struct mf_call *c, struct fs_rig *r)
{
    static const struct mf_statfs st = { .size = sizeof(st), .blocks = 4711 };
    struct mf_answer *a = &c->answer;

    (void)r;
    a->node = 77;
    a->generation = 5;
    a->entry_timeout_ns = 2 * MF_SECOND + 3;
    a->attr_timeout_ns = 4 * MF_SECOND + 5;
    a->attr = attr_of_file();
    a->fh = 99;
    a->open_flags = MF_OPEN_KEEP_CACHE;
    a->value = 12;
    if (c->op == MF_OP_STATFS)
        a->data = &st;
    else if (c->length == 0 && (c->op == MF_OP_GETXATTR || c->op == MF_OP_LISTXATTR))
        return 0;
    else
        a->data = "hello", a->data_len = 5;
    return 0;
}

FS_TEST(session_reply, the_record_answers_every_operation)
{
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);

        if (!row->slot || row->reply == MF__REPLY_NEVER)
            continue;
        ask_sample(opcode, answer_all);
        switch (row->reply) {
        case MF__REPLY_EMPTY: cr_expect_eq(got.len, 0); break;
        case MF__REPLY_ENTRY:
            cr_expect_eq(got.body.entry.nodeid, 77, "%s", row->name);
            cr_expect_eq(got.body.entry.entry_valid_nsec, 3);
            expect_attr(&got.body.entry.attr);
            break;
        case MF__REPLY_ATTR:
            cr_expect_eq(got.body.attr.attr_valid, 4);
            expect_attr(&got.body.attr.attr);
            break;
        case MF__REPLY_OPEN: cr_expect_eq(got.body.open.fh, 99); break;
        case MF__REPLY_CREATE:
            cr_expect_eq(got.body.create.entry.generation, 5);
            cr_expect_eq(got.body.create.open.open_flags, FOPEN_KEEP_CACHE);
            break;
        case MF__REPLY_DATA:
        case MF__REPLY_XATTR: cr_expect_arr_eq(got.body.bytes, "hello", 5); break;
        case MF__REPLY_WRITE: cr_expect_eq(got.body.write.size, 12); break;
        case MF__REPLY_COPY64: cr_expect_eq(got.body.copy.bytes_copied, 12); break;
        case MF__REPLY_STATFS: cr_expect_eq(got.body.statfs.st.blocks, 4711); break;
        case MF__REPLY_LSEEK: cr_expect_eq(got.body.lseek.offset, 12); break;
        default: cr_expect_eq(got.rc, -EIO, "%s", row->name); continue;
        }
        cr_expect_eq(got.rc, 0, "%s: %d", row->name, got.rc);
    }
    ask_xattr(0, answer_all);
    cr_expect_eq(got.rc, 0);
    cr_expect_eq(got.body.xattr.size, 12);
}

static int32_t returned; /* by the upcall */

static int32_t just_return(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    (void)r;
    return returned;
}

FS_TEST(session_reply, return_values)
{
    const struct {
        int32_t returned;
        int rc;
    } cases[] = {
        { -ENOENT, -ENOENT }, { -511, -511 },      { -512, -EIO },          { -4096, -EIO },
        { 3, -EIO },          { INT32_MAX, -EIO }, { INT32_MIN + 1, -EIO },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        returned = cases[i].returned;
        ask_sample(FUSE_GETATTR, just_return);
        cr_expect_eq(got.rc, cases[i].rc, "%d: %d", returned, got.rc);
    }
    cr_expect(fs_logged(&rig, "no errno") > 0);
}

static int32_t answer_from_fd(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    c->answer.flags = MF_ANSWER_FD;
    c->answer.data_fd = *(int *)rig.data;
    c->answer.data_offset = 3;
    c->answer.data_len = 4;
    return 0;
}

FS_TEST(session_reply, data_from_a_descriptor)
{
    int fd = memfd_create("data", MFD_CLOEXEC), gone = -1;

    cr_assert_eq(write(fd, "0123456789", 10), 10);
    rig.data = &fd;
    ask_read(100, answer_from_fd);
    cr_assert_eq(got.len, 4);
    cr_expect_arr_eq(got.body.bytes, "3456", 4);
    rig.data = &gone;
    ask_read(100, answer_from_fd);
    cr_expect_eq(got.rc, -EBADF, "%d", got.rc);
    close(fd);
}

/* ---- more than one answer, and none ---------------------------------------------------------------------- */

static int second_rc[4];

static int32_t answer_often(struct mf_call *c, struct fs_rig *r)
{
    struct mf_attr a = attr_of_file();

    (void)r;
    reply_rc = mf_reply_attr(c->req, &a, 0);
    a.size = 1;
    second_rc[0] = mf_reply_attr(c->req, &a, 0);
    second_rc[1] = mf_reply_err(c->req, EPERM);
    second_rc[2] = mf_req_defer(c->req);
    second_rc[3] = mf_req_interrupted(c->req);
    return -ENOENT; /* one too many as well */
}

FS_TEST(session_reply, the_first_answer_counts)
{
    ask_sample(FUSE_GETATTR, answer_often);
    cr_expect_eq(reply_rc, 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(second_rc); i++)
        cr_expect_eq(second_rc[i], -EALREADY, "%zu: %d", i, second_rc[i]);
    cr_expect_eq(got.rc, 0);
    cr_expect_eq(got.body.attr.attr.size, 1234);
    cr_expect_eq(fs_stats(&rig, 0).replies, 1);
}

FS_TEST(session_reply, a_forgotten_answer_is_eio)
{
    returned = MF_ANSWERED;
    ask_sample(FUSE_GETATTR, just_return);
    cr_expect_eq(got.rc, -EIO);
    cr_expect_eq(fs_stats(&rig, 0).forgotten, 1);
    cr_expect_eq(fs_logged(&rig, "GETATTR of node 7: the handler returned without an answer"), 1, "%s", rig.log);
}

/* ---- values that are none --------------------------------------------------------------------------------- */

static int bad_error;

static int32_t reply_bad_error(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_err(c->req, bad_error);
    return MF_ANSWERED;
}

FS_TEST(session_reply, impossible_errors)
{
    const int errors[] = { -1, -EPERM, 512, 4096, INT32_MAX, INT32_MIN };

    for (size_t i = 0; i < MF__ARRAY_SIZE(errors); i++) {
        bad_error = errors[i];
        ask_sample(FUSE_GETATTR, reply_bad_error);
        cr_expect_eq(reply_rc, -EINVAL, "%d", errors[i]);
        cr_expect_eq(got.rc, -EIO, "%d: %d", errors[i], got.rc);
    }
    bad_error = 511;
    ask_sample(FUSE_GETATTR, reply_bad_error);
    cr_expect_eq(got.rc, -511);
}

static struct mf_attr bad_attr;

static int32_t reply_bad_attr(struct mf_call *c, struct fs_rig *r)
{
    struct mf_entry e = { .size = sizeof(e), .node = 5, .attr = bad_attr };

    (void)r;
    if (c->op == MF_OP_GETATTR)
        reply_rc = mf_reply_attr(c->req, &bad_attr, 0);
    else if (c->op == MF_OP_CREATE)
        reply_rc = mf_reply_create(c->req, &e, &an_open);
    else
        reply_rc = mf_reply_entry(c->req, &e);
    return MF_ANSWERED;
}

static int32_t return_bad_attr(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = -EINVAL;
    c->answer.attr = bad_attr;
    c->answer.node = 5;
    return 0;
}

static void expect_bad_attr(const char *what)
{
    const uint32_t opcodes[] = { FUSE_GETATTR, FUSE_LOOKUP, FUSE_MKDIR, FUSE_CREATE };

    for (size_t i = 0; i < MF__ARRAY_SIZE(opcodes); i++) {
        ask_sample(opcodes[i], reply_bad_attr);
        cr_expect_eq(reply_rc, -EINVAL, "%s in opcode %u", what, opcodes[i]);
        cr_expect_eq(got.rc, -EIO, "%s in opcode %u", what, opcodes[i]);
        ask_sample(opcodes[i], return_bad_attr);
        cr_expect_eq(got.rc, -EIO, "%s in opcode %u", what, opcodes[i]);
    }
}

FS_TEST(session_reply, impossible_attributes)
{
    bad_attr = attr_of_file(), bad_attr.mode = 0644;
    expect_bad_attr("no type");
    bad_attr = attr_of_file(), bad_attr.mode = S_IFMT | 0644;
    expect_bad_attr("all types");
    bad_attr = attr_of_file(), bad_attr.size = 1ull << 63;
    expect_bad_attr("negative size");
    bad_attr = attr_of_file(), bad_attr.atimensec = 1000000000;
    expect_bad_attr("atime");
    bad_attr = attr_of_file(), bad_attr.mtimensec = UINT32_MAX;
    expect_bad_attr("mtime");
    bad_attr = attr_of_file(), bad_attr.ctimensec = 1000000000;
    expect_bad_attr("ctime");
}

static struct mf_entry bad_entry;

static int32_t reply_bad_entry(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_entry(c->req, &bad_entry);
    return MF_ANSWERED;
}

FS_TEST(session_reply, impossible_entries)
{
    bad_entry = entry_of_file(), bad_entry.node = 0;
    ask_sample(FUSE_MKDIR, reply_bad_entry);
    cr_expect_eq(got.rc, -EIO, "a new directory without a node");
    ask_sample(FUSE_LOOKUP, reply_bad_entry);
    cr_expect_eq(got.rc, 0, "no such name, and that may be cached");
    cr_expect_eq(got.body.entry.nodeid, 0);
    bad_entry.node = MF_ROOT;
    ask_sample(FUSE_MKDIR, reply_bad_entry);
    cr_expect_eq(got.rc, -EIO, "a new directory that is the root");
    bad_entry = entry_of_file(), bad_entry.size = 0;
    ask_sample(FUSE_LOOKUP, reply_bad_entry);
    cr_expect_eq(reply_rc, -EINVAL, "a structure without its size");
    cr_expect_eq(got.rc, -EIO);
    bad_entry = entry_of_file(), bad_entry.attr.ino = 0;
    ask_sample(FUSE_LOOKUP, reply_bad_entry);
    cr_expect_eq(got.rc, 0);
    cr_expect_eq(got.body.entry.attr.ino, 77, "the node stands in for an inode number");
}

static struct {
    const void *data;
    uint64_t length;
} piece;

static int32_t reply_piece(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_data(c->req, piece.data, piece.length);
    return MF_ANSWERED;
}

static int32_t reply_piece_of_buffer(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_buffer(c->req, piece.length);
    return MF_ANSWERED;
}

static int32_t return_piece(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = -EINVAL;
    c->answer.data = piece.data;
    c->answer.data_len = piece.length;
    return 0;
}

static void expect_bad_piece(uint32_t size, const void *data, uint64_t length)
{
    const fs_script bad[] = { reply_piece, return_piece, reply_piece_of_buffer };

    piece.data = data;
    piece.length = length;
    for (size_t i = 0; i < (data ? 3 : 1); i++) {
        ask_read(size, bad[i]);
        cr_expect_eq(reply_rc, -EINVAL, "%llu of %u bytes, script %zu", (unsigned long long)length, size, i);
        cr_expect_eq(got.rc, -EIO, "%llu of %u bytes, script %zu", (unsigned long long)length, size, i);
    }
}

FS_TEST(session_reply, oversized_data)
{
    static const char data[128];

    expect_bad_piece(10, data, 11);
    expect_bad_piece(10, data, UINT64_MAX);
    expect_bad_piece(10, data, (uint64_t)-5);
    expect_bad_piece(0, data, 1);
    expect_bad_piece(10, NULL, 5);
    piece.data = NULL, piece.length = 0;
    ask_read(10, reply_piece);
    cr_expect_eq(got.rc, 0, "nothing at the end of a file");
    cr_expect_eq(got.len, 0);
}

/* A request may ask for more than the buffer has: then the buffer's end counts. */
FS_TEST(session_reply, more_than_the_buffer)
{
    piece.length = rig.s->terms.max_write + 1;
    ask_read(UINT32_MAX, reply_piece_of_buffer);
    cr_expect_eq(reply_rc, -EINVAL);
    cr_expect_eq(got.rc, -EIO);
    piece.data = NULL;
    ask_read(UINT32_MAX, return_piece);
    cr_expect_eq(got.rc, -EIO);
}

static int32_t reply_oversized_link(struct mf_call *c, struct fs_rig *r)
{
    static const char target[5000];

    (void)r;
    reply_rc = mf_reply_data(c->req, target, 4096);
    return MF_ANSWERED;
}

static int32_t write_too_much(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    c->answer.value = c->length + 1;
    return 0;
}

static int32_t reply_too_much(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_reply_write(c->req, c->length + 1);
    return MF_ANSWERED;
}

static int32_t statfs_of_nothing(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    (void)r;
    return 0;
}

FS_TEST(session_reply, other_garbage)
{
    ask_sample(FUSE_READLINK, reply_oversized_link);
    cr_expect_eq(reply_rc, -EINVAL);
    cr_expect_eq(got.rc, -EIO);
    ask_sample(FUSE_WRITE, reply_too_much);
    cr_expect_eq(reply_rc, -EINVAL);
    cr_expect_eq(got.rc, -EIO);
    ask_sample(FUSE_WRITE, write_too_much);
    cr_expect_eq(got.rc, -EIO);
    ask_sample(FUSE_STATFS, statfs_of_nothing);
    cr_expect_eq(got.rc, -EIO);
}

/* ---- directories ------------------------------------------------------------------------------------------- */

static int32_t read_names(struct mf_call *c, struct fs_rig *r)
{
    char longest[4097];

    (void)r;
    memset(longest, 'n', sizeof(longest));
    cr_expect_eq(mf_dirent_add(c->req, "", 0, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, "a/b", 3, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, "/", 1, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, "a\0b", 3, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, longest, 4096, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, longest, UINT64_MAX, 1, 0, 1), -EINVAL);
    cr_expect_eq(mf_dirent_add(c->req, "good", 4, 21, S_IFDIR, 1), 0);
    cr_expect_eq(mf_dirent_add(c->req, "better", 6, 22, S_IFREG, 2), 0);
    cr_expect_eq(mf_dirent_add(c->req, longest, 4000, 23, S_IFREG, 3), -ENOSPC);
    reply_rc = mf_reply_dirents(c->req);
    return MF_ANSWERED;
}

FS_TEST(session_reply, names_of_a_directory)
{
    struct fuse_read_in in = { .size = 4000 };
    struct fuse_dirent d;

    ask(FUSE_READDIR, &in, sizeof(in), read_names);
    cr_expect_eq(reply_rc, 0);
    cr_assert_eq(got.len, 32 + 32);
    memcpy(&d, got.body.bytes, sizeof(d));
    cr_expect_eq(d.ino, 21);
    cr_expect_eq(d.off, 1);
    cr_expect_eq(d.namelen, 4);
    cr_expect_eq(d.type, 4);
    cr_expect_arr_eq(got.body.bytes + 24, "good\0\0\0\0", 8);
    cr_expect_arr_eq(got.body.bytes + 32 + 24, "better", 6);
}

static int32_t name_elsewhere(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    reply_rc = mf_dirent_add(c->req, "name", 4, 1, 0, 1);
    return -EPERM;
}

FS_TEST(session_reply, names_where_none_belong)
{
    ask_sample(FUSE_READ, name_elsewhere);
    cr_expect_eq(reply_rc, -EINVAL);
    ask_sample(FUSE_GETATTR, name_elsewhere);
    cr_expect_eq(reply_rc, -EINVAL);
}

FS_TEST(session_reply, directory_entries_in_plain_memory)
{
    uint8_t buf[64];

    memset(buf, 0xee, sizeof(buf));
    cr_expect_eq(mf_dirent_put(buf, sizeof(buf), 0, "abc", 3, 5, S_IFREG, 1), 32);
    cr_expect_eq(mf_dirent_put(buf, sizeof(buf), 32, "abcdefgh", 8, 5, S_IFREG, 1), 32);
    cr_expect_eq(mf_dirent_put(buf, sizeof(buf), 64, "a", 1, 5, S_IFREG, 1), -ENOSPC);
    cr_expect_eq(mf_dirent_put(buf, sizeof(buf), 65, "a", 1, 5, S_IFREG, 1), -EINVAL);
    cr_expect_eq(mf_dirent_put(buf, sizeof(buf), UINT64_MAX, "a", 1, 5, S_IFREG, 1), -EINVAL);
    cr_expect_eq(mf_dirent_put(buf, 31, 0, "abc", 3, 5, S_IFREG, 1), -ENOSPC);
}

/* ---- what C answers ------------------------------------------------------------------------------------------ */

static int32_t never(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    cr_expect_fail("a handler was called for operation %u", c->op);
    return -EIO;
}

static void expect_refusals(int refusal)
{
    rig.s->implemented = 0;
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);
        bool released = opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR;

        if (!row->known || row->reply == MF__REPLY_NEVER || (row->props & MF__OPC_SESSION))
            continue;
        ask_sample(opcode, never);
        cr_expect_eq(got.rc, released ? 0 : row->slot ? refusal : -ENOSYS, "%s: %d", row->name, got.rc);
    }
}

FS_TEST(session_reply, what_is_not_implemented)
{
    rig.s->terms.implemented = 0;
    expect_refusals(-ENOSYS);
}

/* The kernel would take ENOSYS for the whole connection. */
FS_TEST(session_reply, what_only_another_session_implements)
{
    rig.s->terms.implemented = UINT64_MAX;
    expect_refusals(-EIO);
}

FS_TEST(session_reply, opcodes_that_nobody_knows)
{
    const uint32_t opcodes[] = { 7, 19, 54, 63, 64, 100, 4096, 1048576, 436207616, UINT32_MAX };
    static const uint8_t body[64];

    for (size_t i = 0; i < MF__ARRAY_SIZE(opcodes); i++) {
        ask(opcodes[i], body, i * 7, never);
        cr_expect_eq(got.rc, -ENOSYS, "opcode %u: %d", opcodes[i], got.rc);
    }
    cr_expect_eq(fs_stats(&rig, 0).malformed, 0);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
}

FS_TEST(session_reply, messages_of_the_session_itself)
{
    ask(FUSE_DESTROY, NULL, 0, never);
    cr_expect_eq(got.rc, 0);
    ask_sample(FUSE_INIT, never);
    cr_expect_eq(got.rc, -EIO, "a second handshake: %d", got.rc);
    cr_expect_eq(mf_client_send(rig.vk, FUSE_NOTIFY_REPLY, 1, NULL, 0, &(uint64_t){ 0 }), 0);
    fs_step(&rig, 0);
}

/* ---- forgets ---------------------------------------------------------------------------------------------------- */

static struct {
    unsigned calls;
    struct mf_forget items[8];
    uint64_t count;
    int rcs[4];
} forgot;

static int32_t note_forget(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    cr_assert_eq(c->op, MF_OP_FORGET);
    forgot.calls++;
    forgot.count = c->length;
    memcpy(forgot.items, c->data, c->length * sizeof(struct mf_forget));
    forgot.rcs[0] = mf_req_defer(c->req);
    forgot.rcs[1] = mf_reply_err(c->req, 0);
    forgot.rcs[2] = mf_reply_data(c->req, "x", 1);
    forgot.rcs[3] = 0;
    return (int32_t)(forgot.calls - 2); /* whatever it returns */
}

FS_TEST(session_reply, forgets_are_heard_and_not_answered)
{
    rig.script = note_forget;
    cr_expect_eq(mf_client_forget(rig.vk, 40, 3), 0);
    fs_step(&rig, 0);
    cr_expect_eq(forgot.calls, 1);
    cr_assert_eq(forgot.count, 1);
    cr_expect_eq(forgot.items[0].node, 40);
    cr_expect_eq(forgot.items[0].nlookup, 3);
    for (uint64_t i = 0; i < 5; i++)
        cr_expect_eq(mf_client_forget(rig.vk, 50 + i, 1 + i), 0);
    fs_step(&rig, 0);
    cr_expect_eq(forgot.calls, 2);
    cr_assert_eq(forgot.count, 5);
    for (uint64_t i = 0; i < 5; i++) {
        cr_expect_eq(forgot.items[i].node, 50 + i);
        cr_expect_eq(forgot.items[i].nlookup, 1 + i);
    }
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(forgot.rcs[i], -EINVAL, "%zu", i);
    cr_expect_eq(fs_stats(&rig, 0).replies, 0);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
    cr_expect_eq(fs_stats(&rig, 0).forgotten, 0);
}

FS_TEST(session_reply, forgets_without_a_handler)
{
    rig.s->implemented = 0;
    rig.script = never;
    cr_expect_eq(mf_client_forget(rig.vk, 40, 3), 0);
    fs_step(&rig, 0);
    cr_expect_eq(fs_stats(&rig, 0).requests, 1);
    cr_expect_eq(fs_stats(&rig, 0).replies, 0);
}

/* ---- the record -------------------------------------------------------------------------------------------------- */

static int32_t look(struct mf_call *c, struct fs_rig *r)
{
    uint64_t room = 1;

    cr_expect_eq(c->size, sizeof(*c));
    cr_expect_eq(c->session, r->s);
    cr_expect_eq(c->reader, 0);
    cr_expect_eq(c->again, 0);
    cr_expect_eq(mf_req_call(c->req), c);
    cr_expect_eq(mf_req_session(c->req), r->s);
    cr_expect_eq(mf_req_interrupted(c->req), 0);
    cr_expect_eq((uintptr_t)c->buf % 4096, 0);
    for (size_t i = 0; i < sizeof(c->answer); i++)
        cr_expect_eq(((uint8_t *)&c->answer)[i], 0, "answer byte %zu", i);
    memset(&c->answer, 0xee, sizeof(c->answer)); /* the next one must not see this */
    if (c->op == MF_OP_WRITE)
        cr_expect_eq((uintptr_t)c->data % 4096, 0, "WRITE's data are not on a page boundary");
    if (c->op == MF_OP_READ) {
        cr_expect_eq(mf_req_buffer(c->req, &room), c->buf);
        cr_expect_geq(c->buf_size, room);
    } else {
        cr_expect_null(mf_req_buffer(c->req, &room));
        cr_expect_eq(room, 0);
    }
    return -EPERM;
}

FS_TEST(session_reply, what_a_handler_sees)
{
    rig.kernel.uid = 5;
    ask_sample(FUSE_WRITE, look);
    ask_read(4096, look);
    ask_sample(FUSE_GETATTR, look);
    cr_expect_eq(got.rc, -EPERM);
    cr_expect_eq(rig.calls, 3);
}

/* ---- room ---------------------------------------------------------------------------------------------------------- */

static int32_t whole_buffer(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    c->answer.data_len = c->length <= c->buf_size ? c->length : 0;
    fs_fill(c->node, 0, c->buf, c->answer.data_len);
    return 0;
}

/* The buffer holds the largest read that the kernel can ask for, whatever was agreed upon for writes. */
Test(session_reply, without_max_pages, .timeout = 30)
{
    fs_init(&rig);
    rig.opts.unwant = FUSE_MAX_PAGES;
    rig.opts.max_write = 4096;
    fs_step_init(&rig, 1);
    ask_read(32 * 4096, whole_buffer);
    cr_expect_eq(got.rc, 0);
    cr_assert_eq(got.len, 32 * 4096);
    cr_expect(fs_right(7, 0, got.body.bytes, got.len));
    fs_end(&rig);
}
