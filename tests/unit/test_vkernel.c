/* SPDX-License-Identifier: MIT */
/* The virtual kernel's rules, over memory channels whose other end is played by hand. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "test_vkernel.h"

TestSuite(vkernel, .timeout = 30);

/* What a client sends here where it does not matter. */
static uint64_t send_op(struct mf_vkernel *vk, uint32_t opcode, const void *in, size_t len)
{
    uint64_t id = 0;
    int rc = mf_client_send(vk, opcode, 1, in, len, &id);

    cr_assert_eq(rc, 0, "send %u: %d", opcode, rc);
    return id;
}

static uint64_t send_one(struct mf_vkernel *vk)
{
    struct fuse_access_in in = { .mask = 4 };

    return send_op(vk, FUSE_ACCESS, &in, sizeof(in));
}

static int wait_one(struct mf_vkernel *vk, uint64_t id)
{
    return mf_client_wait(vk, id, NULL, NULL);
}

static void sleep_ms(long ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

    nanosleep(&t, NULL);
}

/* ---- INIT --------------------------------------------------------------------------------------- */

Test(vkernel, init_comes_first)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .uid = 7, .gid = 8, .pid = 9 };
    struct fuse_init_in in;
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    cr_expect_eq(mf_vkernel_pending(vk), 1);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    cr_expect_eq(e.io.msg.hdr.unique, 2);
    cr_expect_eq(e.io.msg.hdr.len, 104);
    cr_expect_eq(e.io.msg.hdr.nodeid, 0);
    cr_expect_eq(e.io.msg.hdr.uid, 0);
    cr_expect_eq(e.io.msg.hdr.pid, 0);
    cr_assert_eq(mf__decode_init(&e.io.msg, &in), 0);
    cr_expect_eq(in.major, 7);
    cr_expect_eq(in.minor, 45);
    cr_expect_eq(in.flags, 0x73fffffbu);
    cr_expect_eq(in.flags2, 0x5fdu);
    cr_expect_eq(mf_vkernel_reads(vk, 0), 1);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, old_kernels_offer_less)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .minor = 31 };
    struct fuse_init_in in;
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    cr_expect_eq(e.io.msg.hdr.len, 40 + 16);
    cr_assert_eq(mf__decode_init(&e.io.msg, &in), 0);
    cr_expect_eq(in.minor, 31);
    cr_expect_eq(in.flags & (FUSE_INIT_EXT | FUSE_SETXATTR_EXT | FUSE_HANDLE_KILLPRIV_V2), 0);
    cr_expect_neq(in.flags & FUSE_EXPLICIT_INVAL_DATA, 0);
    cr_expect_eq(in.flags2, 0);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, options_of_a_newer_library_are_refused)
{
    struct {
        struct mf_vkernel_opts known;
        uint64_t more;
    } opts = { .known = { .size = sizeof(opts) }, .more = 1 };
    struct mf_vkernel *vk = NULL;

    cr_expect_eq(mf_vkernel_new(&opts.known, &vk), -E2BIG);
    opts.more = 0;
    cr_assert_eq(mf_vkernel_new(&opts.known, &vk), 0);
    mf_vkernel_free(vk);
}

Test(vkernel, requests_wait_for_init)
{
    struct mf_vkernel *vk;
    uint64_t id;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    mf_vkernel_set_timeout(vk, 30);
    cr_expect_eq(mf_client_send(vk, FUSE_STATFS, 1, NULL, 0, &id), -ETIMEDOUT);
    cr_expect_eq(mf_client_forget(vk, 2, 1), -ETIMEDOUT);
    cr_expect_eq(mf_vkernel_pending(vk), 1);
    mf_vkernel_free(vk);
}

static void *raw_statfs(void *arg)
{
    return (void *)(intptr_t)mf_client_raw(arg, FUSE_STATFS, 1, NULL, 0, NULL, NULL);
}

Test(vkernel, the_answer_to_init_lets_them_go)
{
    struct mf_vkernel *vk;
    pthread_t t;
    struct end e;
    void *rc;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    cr_assert_eq(pthread_create(&t, NULL, raw_statfs, vk), 0);
    sleep_ms(20);
    end_init(&e, 0);
    end_expect(&e, FUSE_STATFS);
    cr_expect_eq(e.io.msg.hdr.unique, 4);
    cr_expect_eq(end_answer(&e, -ENOSYS, NULL, 0), 0);
    pthread_join(t, &rc);
    cr_expect_eq((int)(intptr_t)rc, -ENOSYS);
    end_close(&e);
    mf_vkernel_free(vk);
}

static void *early_write(void *arg)
{
    static uint8_t data[10000];

    return (void *)(intptr_t)mf_client_write(arg, 5, 0, data, sizeof(data), 0);
}

Test(vkernel, calls_made_early_work_by_the_terms_to_come)
{
    struct fuse_write_out out = { .size = 10000 };
    struct mf_vkernel *vk;
    pthread_t t;
    struct end e;
    void *rc;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    cr_assert_eq(pthread_create(&t, NULL, early_write, vk), 0);
    sleep_ms(20);
    end_init(&e, 0);
    end_expect(&e, FUSE_WRITE);
    cr_expect_eq(e.io.msg.body_len, 10000);
    cr_expect_eq(end_answer(&e, 0, &out, sizeof(out)), 0);
    pthread_join(t, &rc);
    cr_expect_eq((intptr_t)rc, 10000);
    end_close(&e);
    mf_vkernel_free(vk);
}

/* What the answer to INIT may be, and what clients see then. */
static int init_answered(int error, const void *body, size_t len, int written, uint64_t bad)
{
    struct mf_vkernel *vk;
    struct end e;
    uint64_t id;
    int rc;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    cr_expect_eq(end_answer(&e, error, body, len), written);
    rc = mf_client_send(vk, FUSE_STATFS, 1, NULL, 0, &id);
    cr_expect_eq(mf_vkernel_bad_replies(vk), bad);
    end_close(&e);
    mf_vkernel_free(vk);
    return rc;
}

Test(vkernel, answers_to_init)
{
    struct {
        struct fuse_init_out out;
        uint64_t more;
    } long_one = { .out = terms(0) };
    struct fuse_init_out out = terms(0);

    cr_expect_eq(init_answered(0, &out, 64, 0, 0), 0);
    cr_expect_eq(init_answered(0, &out, 24, 0, 0), 0);
    cr_expect_eq(init_answered(0, &out, 8, 0, 0), 0);
    cr_expect_eq(init_answered(0, &long_one, 72, -EINVAL, 1), -ECONNREFUSED);
    cr_expect_eq(init_answered(0, NULL, 0, 0, 0), -ECONNREFUSED);
    cr_expect_eq(init_answered(-EPROTO, NULL, 0, 0, 0), -ECONNREFUSED);
    out.major = 8;
    cr_expect_eq(init_answered(0, &out, 64, 0, 0), -ECONNREFUSED);
}

Test(vkernel, buffers_must_hold_the_largest_write)
{
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    e.io.recv_size = 8191;
    cr_expect_eq(end_read(&e), -EINVAL);
    cr_expect_eq(mf_vkernel_pending(vk), 1);
    e.io.recv_size = 8192;
    end_init(&e, 0);
    send_one(vk);
    e.io.recv_size = 80 + MAX_WRITE - 1;
    cr_expect_eq(end_read(&e), -EINVAL);
    e.io.recv_size = 80 + MAX_WRITE;
    cr_expect_eq(end_read(&e), 0);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, only_what_was_offered_is_adopted)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_INIT_EXT };
    struct fuse_init_out out = terms(FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_SECURITY_CTX);
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    out.max_write = 1;
    cr_assert_eq(end_answer(&e, 0, &out, sizeof(out)), 0);
    cr_expect_eq(mf__vk_flags(vk), FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_INIT_EXT);
    cr_expect_eq(mf__vk_max_write(vk), 4096);
    cr_expect_eq(mf__vk_max_read(vk), 131072, "MAX_PAGES was not offered");
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, flags2_counts_only_with_init_ext)
{
    struct fuse_init_out out = terms(FUSE_SECURITY_CTX);
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    out.flags &= ~(uint32_t)FUSE_INIT_EXT;
    out.max_pages = 1000;
    cr_assert_eq(end_answer(&e, 0, &out, sizeof(out)), 0);
    cr_expect_eq(mf__vk_flags(vk) & FUSE_SECURITY_CTX, 0);
    cr_expect_eq(mf__vk_max_read(vk), 256 * 4096);
    end_close(&e);
    mf_vkernel_free(vk);
}

/* ---- requests and their answers ----------------------------------------------------------------- */

Test(vkernel, a_request_arrives_as_it_was_sent)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .uid = 7, .gid = 8, .pid = 9 };
    struct fuse_entry_out entry = { .nodeid = 5 }, got;
    uint64_t len = sizeof(got);
    struct mf_vkernel *vk;
    struct end e;
    uint64_t id;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_init(&e, 0);
    id = send_op(vk, FUSE_LOOKUP, "name", 5);
    cr_expect_eq(id, 4);
    end_expect(&e, FUSE_LOOKUP);
    cr_expect_eq(e.io.msg.hdr.unique, id);
    cr_expect_eq(e.io.msg.hdr.nodeid, 1);
    cr_expect_eq(e.io.msg.hdr.uid, 7);
    cr_expect_eq(e.io.msg.hdr.gid, 8);
    cr_expect_eq(e.io.msg.hdr.pid, 9);
    cr_expect_eq(e.io.msg.body_len, 5);
    cr_expect_str_eq((const char *)e.io.msg.body, "name");
    cr_expect_eq(e.io.ch, e.ch);
    cr_expect_eq(end_answer(&e, 0, &entry, sizeof(entry)), 0);
    cr_expect_eq(mf_vkernel_pending(vk), 0);
    cr_expect_eq(mf_client_wait(vk, id, &got, &len), 0);
    cr_expect_eq(len, sizeof(got));
    cr_expect_eq(got.nodeid, 5);
    cr_expect_eq(mf_client_wait(vk, id, &got, &len), -ENOENT, "collected twice");
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, releases_carry_no_credentials)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .uid = 7, .gid = 8, .pid = 9 };
    struct fuse_release_in in = { .fh = 1 };
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_init(&e, 0);
    send_op(vk, FUSE_RELEASE, &in, sizeof(in));
    end_expect(&e, FUSE_RELEASE);
    cr_expect_eq(e.io.msg.hdr.uid, 0);
    cr_expect_eq(e.io.msg.hdr.gid, 0);
    cr_expect_eq(e.io.msg.hdr.pid, 0);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, too_little_room_is_told)
{
    struct fuse_entry_out entry = { .nodeid = 5 };
    uint8_t small[16];
    uint64_t len = sizeof(small);
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_op(p.vk, FUSE_LOOKUP, "n", 2);
    end_expect(&p.end, FUSE_LOOKUP);
    cr_expect_eq(end_answer(&p.end, 0, &entry, sizeof(entry)), 0);
    cr_expect_eq(mf_client_wait(p.vk, id, small, &len), -ERANGE);
    cr_expect_eq(len, sizeof(entry));
    pair_close(&p);
}

Test(vkernel, a_second_reply_finds_nobody)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, -EACCES, NULL, 0), 0);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), -ENOENT);
    cr_expect_eq(wait_one(p.vk, id), -EACCES);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 1);
    pair_close(&p);
}

Test(vkernel, unknown_and_unread_requests_cannot_be_answered)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    cr_expect_eq(end_reply(&p.end, id, 0, NULL, 0), -ENOENT, "not read yet");
    cr_expect_eq(end_reply(&p.end, 0x1000, 0, NULL, 0), -ENOENT);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 2);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, id), 0);
    pair_close(&p);
}

static int write_header(struct end *e, uint32_t len, int error, uint64_t unique, size_t size)
{
    struct {
        struct fuse_out_header hdr;
        uint8_t more[48];
    } msg = { .hdr = { .len = len, .error = error, .unique = unique } };

    return e->ch->ops->write_raw(e->ch, &msg, size);
}

Test(vkernel, malformed_headers_leave_the_request_alone)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(write_header(&p.end, 15, 0, id, 15), -EINVAL);
    cr_expect_eq(write_header(&p.end, 16, 0, id, 0), -EINVAL);
    cr_expect_eq(write_header(&p.end, 17, 0, id, 16), -EINVAL);
    cr_expect_eq(write_header(&p.end, 16, 0, id, 17), -EINVAL);
    cr_expect_eq(write_header(&p.end, 16, 1, id, 16), -EINVAL);
    cr_expect_eq(write_header(&p.end, 16, -512, id, 16), -EINVAL);
    cr_expect_eq(write_header(&p.end, 16, INT32_MIN, id, 16), -EINVAL);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 7);
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    cr_expect_eq(write_header(&p.end, 16, -511, id, 16), 0);
    cr_expect_eq(wait_one(p.vk, id), -511);
    pair_close(&p);
}

Test(vkernel, an_error_has_no_body)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, -ENOENT, "12345678", 8), -EINVAL);
    cr_expect_eq(wait_one(p.vk, id), -EIO);
    cr_expect_eq(end_answer(&p.end, -ENOENT, NULL, 0), -ENOENT, "the slot is used up");
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 2);
    pair_close(&p);
}

/* Every opcode that is answered, with the bytes that its success has. */
static const struct {
    uint32_t opcode, least, most;
} sizes[] = {
    { FUSE_LOOKUP, 128, 128 },    { FUSE_GETATTR, 104, 104 },
    { FUSE_SETATTR, 104, 104 },   { FUSE_READLINK, 0, 4095 },
    { FUSE_SYMLINK, 128, 128 },   { FUSE_MKNOD, 128, 128 },
    { FUSE_MKDIR, 128, 128 },     { FUSE_UNLINK, 0, 0 },
    { FUSE_RMDIR, 0, 0 },         { FUSE_RENAME, 0, 0 },
    { FUSE_LINK, 128, 128 },      { FUSE_OPEN, 16, 16 },
    { FUSE_READ, 0, 256 },        { FUSE_WRITE, 8, 8 },
    { FUSE_STATFS, 80, 80 },      { FUSE_RELEASE, 0, 0 },
    { FUSE_FSYNC, 0, 0 },         { FUSE_SETXATTR, 0, 0 },
    { FUSE_GETXATTR, 0, 256 },    { FUSE_LISTXATTR, 0, 256 },
    { FUSE_REMOVEXATTR, 0, 0 },   { FUSE_FLUSH, 0, 0 },
    { FUSE_OPENDIR, 16, 16 },     { FUSE_READDIR, 0, 256 },
    { FUSE_RELEASEDIR, 0, 0 },    { FUSE_FSYNCDIR, 0, 0 },
    { FUSE_GETLK, 24, 24 },       { FUSE_SETLK, 0, 0 },
    { FUSE_SETLKW, 0, 0 },        { FUSE_ACCESS, 0, 0 },
    { FUSE_CREATE, 144, 144 },    { FUSE_BMAP, 8, 8 },
    { FUSE_DESTROY, 0, 0 },       { FUSE_IOCTL, 16, 16 + 256 },
    { FUSE_POLL, 8, 8 },          { FUSE_FALLOCATE, 0, 0 },
    { FUSE_READDIRPLUS, 0, 256 }, { FUSE_RENAME2, 0, 0 },
    { FUSE_LSEEK, 8, 8 },         { FUSE_COPY_FILE_RANGE, 8, 8 },
    { FUSE_SETUPMAPPING, 0, 0 },  { FUSE_REMOVEMAPPING, 0, 0 },
    { FUSE_SYNCFS, 0, 0 },        { FUSE_TMPFILE, 144, 144 },
    { FUSE_STATX, 288, 288 },     { FUSE_COPY_FILE_RANGE_64, 8, 8 },
};

/* A request whose answer may have 256 bytes where it says how many. */
static size_t request_for(uint32_t opcode, uint8_t *in)
{
    uint32_t want = 256;
    size_t at = opcode == FUSE_IOCTL                                  ? offsetof(struct fuse_ioctl_in, out_size)
                : opcode == FUSE_GETXATTR || opcode == FUSE_LISTXATTR ? 0
                                                                      : offsetof(struct fuse_read_in, size);

    memset(in, 0, 64);
    memcpy(in + at, &want, sizeof(want));
    return 64;
}

static void check_size(struct pair *p, uint32_t opcode, uint32_t len, bool good)
{
    static uint8_t body[8192];
    uint8_t in[64];
    uint64_t id = send_op(p->vk, opcode, in, request_for(opcode, in));
    uint64_t got = sizeof(body);
    uint64_t bad = mf_vkernel_bad_replies(p->vk);

    end_expect(&p->end, opcode);
    cr_expect_eq(end_answer(&p->end, 0, body, len), good ? 0 : -EINVAL, "opcode %u, %u bytes", opcode, len);
    cr_expect_eq(mf_client_wait(p->vk, id, body, &got), good ? 0 : -EIO, "opcode %u, %u bytes", opcode, len);
    cr_expect_eq(got, good ? len : 0);
    cr_expect_eq(mf_vkernel_bad_replies(p->vk), bad + !good);
}

Test(vkernel, success_has_its_exact_size)
{
    struct pair p;

    pair_open(&p, 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        check_size(&p, sizes[i].opcode, sizes[i].least, true);
        check_size(&p, sizes[i].opcode, sizes[i].most, true);
        check_size(&p, sizes[i].opcode, sizes[i].most + 1, false);
        if (sizes[i].least > 0)
            check_size(&p, sizes[i].opcode, sizes[i].least - 1, false);
    }
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    pair_close(&p);
}

Test(vkernel, a_query_of_an_xattr_has_a_size)
{
    struct fuse_getxattr_in in = { .size = 0 };
    uint8_t body[16] = { 0 };
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    for (uint32_t opcode = FUSE_GETXATTR; opcode <= FUSE_LISTXATTR; opcode++) {
        id = send_op(p.vk, opcode, &in, sizeof(in));
        end_expect(&p.end, opcode);
        cr_expect_eq(end_answer(&p.end, 0, body, 7), -EINVAL);
        cr_expect_eq(wait_one(p.vk, id), -EIO);
        id = send_op(p.vk, opcode, &in, sizeof(in));
        end_expect(&p.end, opcode);
        cr_expect_eq(end_answer(&p.end, 0, body, 8), 0);
        cr_expect_eq(wait_one(p.vk, id), 0);
    }
    pair_close(&p);
}

Test(vkernel, what_no_kernel_asks_may_be_answered_with_anything)
{
    struct pair p;
    uint64_t id, len = 8;
    char got[8];

    pair_open(&p, 0);
    id = send_op(p.vk, 4711, NULL, 0);
    cr_assert_eq(end_read(&p.end), 0);
    cr_expect_eq(end_answer(&p.end, 0, "12345", 5), 0);
    cr_expect_eq(mf_client_wait(p.vk, id, got, &len), 0);
    cr_expect_eq(len, 5);
    pair_close(&p);
}

/* The engine's table and the virtual kernel's rules were written separately; they must agree. */
Test(vkernel, both_lists_of_opcodes_agree)
{
    for (uint32_t opcode = 0; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);
        uint8_t in[64];
        uint32_t least, most;

        if (!row->known || row->reply == MF__REPLY_NEVER)
            continue;
        mf__vk_reply_size(opcode, in, request_for(opcode, in), &least, &most);
        switch (row->reply) {
        case MF__REPLY_EMPTY: cr_expect_eq(most, 0, "opcode %u", opcode); break;
        case MF__REPLY_ENTRY: cr_expect_eq(least, 128, "opcode %u", opcode); break;
        case MF__REPLY_ATTR: cr_expect_eq(least, 104, "opcode %u", opcode); break;
        case MF__REPLY_OPEN: cr_expect_eq(most, 16, "opcode %u", opcode); break;
        case MF__REPLY_CREATE: cr_expect_eq(least, 144, "opcode %u", opcode); break;
        case MF__REPLY_STATX: cr_expect_eq(least, 288, "opcode %u", opcode); break;
        case MF__REPLY_STATFS: cr_expect_eq(least, 80, "opcode %u", opcode); break;
        case MF__REPLY_LK: cr_expect_eq(least, 24, "opcode %u", opcode); break;
        case MF__REPLY_DATA:
        case MF__REPLY_XATTR: cr_expect(least == 0 && most >= 256, "opcode %u", opcode); break;
        case MF__REPLY_IOCTL: cr_expect(least == 16 && most == 272, "opcode %u", opcode); break;
        case MF__REPLY_INIT: cr_expect(least == 0 && most == 64, "opcode %u", opcode); break;
        default: cr_expect(least == 8 && most == 8, "opcode %u", opcode); break;
        }
    }
}

Test(vkernel, a_reply_may_come_in_pieces)
{
    struct iovec iov[] = { { "ab", 2 }, { NULL, 0 }, { "cde", 3 }, { "f", 1 } };
    struct fuse_read_in in = { .size = 100 };
    uint64_t len = 8;
    char got[8] = "";
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_op(p.vk, FUSE_READ, &in, sizeof(in));
    end_expect(&p.end, FUSE_READ);
    cr_expect_eq(p.end.ch->ops->send(p.end.ch, &p.end.io, id, 0, iov, 4), 0);
    cr_expect_eq(mf_client_wait(p.vk, id, got, &len), 0);
    cr_expect_eq(len, 6);
    cr_expect_str_eq(got, "abcdef");
    pair_close(&p);
}

Test(vkernel, the_header_goes_in_front_of_the_body)
{
    struct fuse_out_header hdr;
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_op(p.vk, FUSE_READLINK, NULL, 0);
    end_expect(&p.end, FUSE_READLINK);
    memcpy(p.end.io.body, "target", 6);
    cr_expect_eq(end_answer(&p.end, 0, p.end.io.body, 6), 0);
    memcpy(&hdr, p.end.io.body - OUT_HEADER, sizeof(hdr));
    cr_expect_eq(hdr.len, 22, "as on the device, where one write takes both");
    cr_expect_eq(hdr.unique, id);
    cr_expect_eq(wait_one(p.vk, id), 0);
    pair_close(&p);
}

Test(vkernel, receive_clears_the_length_first)
{
    struct pair p;
    uint32_t len;

    pair_open(&p, 0);
    memset(p.end.io.recv, 0xff, 64);
    p.end.ch->ops->wake(p.end.ch);
    cr_expect_eq(end_read(&p.end), -EINTR);
    memcpy(&len, p.end.io.recv, sizeof(len));
    cr_expect_eq(len, 0);
    pair_close(&p);
}

Test(vkernel, what_no_reader_can_take_fails_at_its_caller)
{
    size_t size = MAX_WRITE + 4096;
    uint8_t *big = calloc(1, size);
    struct pair p;
    uint64_t xattr, other, fits;

    pair_open(&p, 0);
    xattr = send_op(p.vk, FUSE_SETXATTR, big, size);
    other = send_op(p.vk, FUSE_WRITE, big, size);
    fits = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(p.end.io.msg.hdr.unique, fits);
    cr_expect_eq(wait_one(p.vk, xattr), -E2BIG);
    cr_expect_eq(wait_one(p.vk, other), -EIO);
    free(big);
    pair_close(&p);
}

/* ---- order -------------------------------------------------------------------------------------- */

Test(vkernel, forgets_are_batched_from_two_on)
{
    struct fuse_batch_forget_in batch;
    struct fuse_forget_one one[2];
    struct fuse_forget_in in;
    struct pair p;

    pair_open(&p, 0);
    cr_assert_eq(mf_client_forget(p.vk, 5, 3), 0);
    end_expect(&p.end, FUSE_FORGET);
    cr_expect_eq(p.end.io.msg.hdr.nodeid, 5);
    memcpy(&in, p.end.io.msg.args, sizeof(in));
    cr_expect_eq(in.nlookup, 3);
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);

    cr_assert_eq(mf_client_forget(p.vk, 6, 1), 0);
    cr_assert_eq(mf_client_forget(p.vk, 7, 2), 0);
    cr_expect_eq(mf_vkernel_pending(p.vk), 2);
    end_expect(&p.end, FUSE_BATCH_FORGET);
    cr_expect_eq(p.end.io.msg.hdr.nodeid, 0);
    cr_expect_eq(p.end.io.msg.hdr.len, 40 + 8 + 32);
    memcpy(&batch, p.end.io.msg.args, sizeof(batch));
    memcpy(one, p.end.io.msg.body, sizeof(one));
    cr_expect_eq(batch.count, 2);
    cr_expect(one[0].nodeid == 6 && one[0].nlookup == 1 && one[1].nodeid == 7 && one[1].nlookup == 2);
    pair_close(&p);
}

Test(vkernel, a_batch_fills_the_buffer_and_no_more)
{
    struct mf_vkernel *vk;
    struct fuse_init_out out = terms(0);
    struct fuse_batch_forget_in batch;
    struct end e;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    out.max_write = 4096;
    cr_assert_eq(end_answer(&e, 0, &out, sizeof(out)), 0);
    e.io.recv_size = 8192;
    for (int i = 0; i < 600; i++)
        cr_assert_eq(mf_client_forget(vk, 10, 1), 0);
    end_expect(&e, FUSE_BATCH_FORGET);
    memcpy(&batch, e.io.msg.args, sizeof(batch));
    cr_expect_eq(batch.count, (8192 - 48) / 16);
    end_expect(&e, FUSE_BATCH_FORGET);
    memcpy(&batch, e.io.msg.args, sizeof(batch));
    cr_expect_eq(batch.count, 600 - (8192 - 48) / 16);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, old_protocols_have_no_batches)
{
    struct fuse_init_out out = terms(0);
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    end_expect(&e, FUSE_INIT);
    out.minor = 15;
    cr_assert_eq(end_answer(&e, 0, &out, sizeof(out)), 0);
    cr_assert_eq(mf_client_forget(vk, 6, 1), 0);
    cr_assert_eq(mf_client_forget(vk, 7, 1), 0);
    end_expect(&e, FUSE_FORGET);
    end_expect(&e, FUSE_FORGET);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, forgets_cannot_be_answered)
{
    struct pair p;

    pair_open(&p, 0);
    cr_assert_eq(mf_client_forget(p.vk, 5, 1), 0);
    end_expect(&p.end, FUSE_FORGET);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), -ENOENT);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 1);
    pair_close(&p);
}

Test(vkernel, forgets_and_requests_take_turns)
{
    int row = 0, forgets = 0;
    struct pair p;

    pair_open(&p, 0);
    for (int i = 0; i < 40; i++)
        send_one(p.vk);
    /* One forget for each read, so that none of them becomes a batch. */
    for (int i = 0; i < 48; i++) {
        if (p.vk->forgets.next == &p.vk->forgets)
            cr_assert_eq(mf_client_forget(p.vk, 5, 1), 0);
        cr_assert_eq(end_read(&p.end), 0);
        if (p.end.io.msg.hdr.opcode == FUSE_FORGET) {
            forgets++;
            cr_expect(row == 8 || row == 0, "a turn of %d requests", row);
            row = 0;
        } else {
            row++;
            cr_expect_leq(row, 8);
        }
    }
    cr_expect_eq(forgets, 32, "8 requests, 16 forgets, and again");
    pair_close(&p);
}

Test(vkernel, forgets_alone_are_read_at_once)
{
    struct pair p;

    pair_open(&p, 0);
    for (int i = 0; i < 30; i++) {
        cr_assert_eq(mf_client_forget(p.vk, 5, 1), 0);
        end_expect(&p.end, FUSE_FORGET);
    }
    pair_close(&p);
}

Test(vkernel, interrupts_overtake_everything)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    send_op(p.vk, FUSE_STATFS, NULL, 0);
    cr_assert_eq(mf_client_forget(p.vk, 5, 1), 0);
    cr_assert_eq(mf_client_interrupt(p.vk, id), 0);
    end_expect(&p.end, FUSE_INTERRUPT);
    end_expect(&p.end, FUSE_STATFS);
    end_expect(&p.end, FUSE_FORGET);
    pair_close(&p);
}

/* ---- interrupts --------------------------------------------------------------------------------- */

Test(vkernel, an_interrupt_names_its_target)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .uid = 7, .gid = 8, .pid = 9 };
    struct mf_vkernel *vk;
    uint64_t id, target;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_init(&e, 0);
    id = send_one(vk);
    end_expect(&e, FUSE_ACCESS);
    cr_assert_eq(mf_client_interrupt(vk, id), 0);
    cr_expect_eq(mf_vkernel_pending(vk), 2);
    end_expect(&e, FUSE_INTERRUPT);
    cr_expect_eq(e.io.msg.hdr.unique, id | 1);
    cr_expect_eq(e.io.msg.hdr.len, 48);
    cr_expect_eq(e.io.msg.hdr.nodeid, 0);
    cr_expect_eq(e.io.msg.hdr.uid, 0);
    cr_expect_eq(e.io.msg.hdr.pid, 0);
    cr_assert_eq(mf__decode_interrupt(&e.io.msg, &target), 0);
    cr_expect_eq(target, id);
    cr_expect_eq(mf_client_interrupt(vk, id), 0, "one signal is enough");
    cr_expect_eq(mf_vkernel_pending(vk), 1);
    cr_expect_eq(end_reply(&e, id, -EINTR, NULL, 0), 0);
    cr_expect_eq(wait_one(vk, id), -EINTR);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, an_interrupt_follows_what_was_not_read)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    cr_assert_eq(mf_client_interrupt(p.vk, id), 0);
    cr_expect_eq(mf_vkernel_pending(p.vk), 1, "remembered, not queued");
    end_expect(&p.end, FUSE_ACCESS);
    end_expect(&p.end, FUSE_INTERRUPT);
    cr_expect_eq(p.end.io.msg.hdr.unique, id | 1);
    pair_close(&p);
}

Test(vkernel, an_answered_request_cannot_be_interrupted)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    cr_expect_eq(mf_client_interrupt(p.vk, 1000), -ENOENT);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_assert_eq(mf_client_interrupt(p.vk, id), 0);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), 0);
    cr_expect_eq(mf_vkernel_pending(p.vk), 0, "its INTERRUPT is gone with it");
    cr_expect_eq(mf_client_interrupt(p.vk, id), -ENOENT);
    cr_expect_eq(wait_one(p.vk, id), 0);
    pair_close(&p);
}

Test(vkernel, eagain_asks_for_the_interrupt_again)
{
    struct end other;
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_reply(&p.end, id | 1, -EAGAIN, NULL, 0), -EINVAL, "nobody was interrupted");
    cr_assert_eq(mf_client_interrupt(p.vk, id), 0);
    end_expect(&other, FUSE_INTERRUPT);
    cr_expect_eq(end_reply(&other, id | 1, -EAGAIN, NULL, 0), -ENOENT, "the target is elsewhere");
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    cr_expect_eq(end_reply(&p.end, id | 1, -EAGAIN, NULL, 0), 0);
    end_expect(&other, FUSE_INTERRUPT);
    cr_expect_eq(other.io.msg.hdr.unique, id | 1);
    cr_expect_eq(end_reply(&p.end, id | 1, 0, NULL, 0), 0, "other answers change nothing");
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    cr_expect_eq(end_reply(&p.end, id, -EINTR, NULL, 0), 0);
    cr_expect_eq(end_reply(&p.end, id | 1, -EAGAIN, NULL, 0), -ENOENT, "too late");
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 1, "being late is no mistake");
    cr_expect_eq(wait_one(p.vk, id), -EINTR);
    end_close(&other);
    pair_close(&p);
}

Test(vkernel, enosys_ends_interrupts)
{
    struct pair p;
    uint64_t a, b;

    pair_open(&p, 0);
    a = send_one(p.vk);
    b = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    end_expect(&p.end, FUSE_ACCESS);
    cr_assert_eq(mf_client_interrupt(p.vk, a), 0);
    end_expect(&p.end, FUSE_INTERRUPT);
    cr_expect_eq(end_answer(&p.end, -ENOSYS, NULL, 0), 0);
    cr_assert_eq(mf_client_interrupt(p.vk, b), 0);
    cr_expect_eq(mf_vkernel_pending(p.vk), 2, "the two requests and no INTERRUPT");
    pair_close(&p);
}

Test(vkernel, an_answer_to_an_interrupt_is_a_header)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_assert_eq(mf_client_interrupt(p.vk, id), 0);
    cr_expect_eq(end_reply(&p.end, id | 1, 0, "12345678", 8), -EINVAL);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 1);
    cr_expect_eq(end_reply(&p.end, id, 0, NULL, 0), 0, "the target is not harmed");
    cr_expect_eq(wait_one(p.vk, id), 0);
    pair_close(&p);
}

/* ---- clones ------------------------------------------------------------------------------------- */

Test(vkernel, answers_go_where_the_request_was_read)
{
    struct end other;
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    cr_expect_eq(other.ch->index, 1);
    id = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_reply(&other, id, 0, NULL, 0), -ENOENT);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 1);
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    cr_expect_eq(end_answer(&p.end, -EPERM, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, id), -EPERM);
    end_close(&other);
    pair_close(&p);
}

Test(vkernel, clones_share_the_queue_and_are_counted)
{
    struct end other;
    struct pair p;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    send_one(p.vk);
    send_one(p.vk);
    send_one(p.vk);
    end_expect(&other, FUSE_ACCESS);
    end_expect(&p.end, FUSE_ACCESS);
    end_expect(&other, FUSE_ACCESS);
    cr_expect_eq(mf_vkernel_reads(p.vk, 0), 2, "with INIT");
    cr_expect_eq(mf_vkernel_reads(p.vk, 1), 2);
    cr_expect_eq(mf_vkernel_reads(p.vk, 2), 0);
    end_close(&other);
    cr_expect_eq(mf_vkernel_reads(p.vk, 1), 2, "also when it is closed");
    pair_close(&p);
}

Test(vkernel, a_clone_made_early_may_serve_init)
{
    struct fuse_init_out out = terms(0);
    struct mf_vkernel *vk;
    struct end e, other, third;
    uint64_t id;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    end_clone(&other, &e);
    end_clone(&third, &other);
    cr_expect_eq(third.ch->index, 2);
    end_expect(&other, FUSE_INIT);
    cr_expect_eq(end_reply(&e, 2, 0, &out, sizeof(out)), -ENOENT);
    cr_expect_eq(end_answer(&other, 0, &out, sizeof(out)), 0);
    id = send_one(vk);
    end_expect(&e, FUSE_ACCESS);
    cr_expect_eq(end_answer(&e, 0, NULL, 0), 0);
    cr_expect_eq(wait_one(vk, id), 0);
    end_close(&third);
    end_close(&other);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, clones_fail_from_the_nth_on)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .clone_fail_at = 2, .clone_errno = EMFILE };
    struct mf__channel *none = NULL;
    struct mf_vkernel *vk;
    struct end e, first;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_clone(&first, &e);
    cr_expect_eq(e.ch->ops->clone(e.ch, &none), -EMFILE);
    cr_expect_eq(e.ch->ops->clone(e.ch, &none), -EMFILE);
    cr_expect_null(none);
    end_close(&first);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, there_is_one_first_channel)
{
    struct mf__channel *none = NULL;
    struct pair p;

    pair_open(&p, 0);
    cr_expect_eq(mf__memory_channel(p.vk, &none), -EBUSY);
    cr_expect_null(none);
    pair_close(&p);
}

Test(vkernel, closing_a_clone_fails_what_it_holds)
{
    struct end other;
    struct pair p;
    uint64_t lost, kept, queued;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    lost = send_one(p.vk);
    kept = send_one(p.vk);
    end_expect(&other, FUSE_ACCESS);
    end_expect(&p.end, FUSE_ACCESS);
    queued = send_one(p.vk);
    end_close(&other);
    cr_expect_eq(wait_one(p.vk, lost), -ECONNABORTED);
    cr_expect_eq(end_reply(&p.end, kept, 0, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, kept), 0);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, queued), 0);
    pair_close(&p);
}

Test(vkernel, the_first_channel_is_nothing_special)
{
    struct end other;
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    end_close(&p.end);
    id = send_one(p.vk);
    end_expect(&other, FUSE_ACCESS);
    cr_expect_eq(end_answer(&other, 0, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, id), 0);
    id = send_one(p.vk);
    end_close(&other);
    cr_expect_eq(wait_one(p.vk, id), -ECONNABORTED);
    cr_expect_eq(mf_client_send(p.vk, FUSE_STATFS, 1, NULL, 0, &id), -ENOTCONN, "the last one ends the connection");
    mf_vkernel_free(p.vk);
}

Test(vkernel, channels_may_outlive_their_kernel)
{
    struct pair p;

    pair_open(&p, 0);
    mf_vkernel_free(p.vk);
    cr_expect_eq(end_read(&p.end), -ENODEV);
    end_close(&p.end);
}

/* ---- the end ------------------------------------------------------------------------------------ */

Test(vkernel, abort_with_and_without_its_own_error)
{
    for (int with = 0; with < 2; with++) {
        uint64_t in_hand, queued, id;
        struct pair p;

        pair_open(&p, with ? FUSE_ABORT_ERROR : 0);
        in_hand = send_one(p.vk);
        end_expect(&p.end, FUSE_ACCESS);
        queued = send_one(p.vk);
        cr_assert_eq(mf_client_forget(p.vk, 5, 1), 0);
        cr_assert_eq(mf_client_interrupt(p.vk, in_hand), 0);
        mf_vkernel_abort(p.vk);
        cr_expect_eq(mf_vkernel_pending(p.vk), 0);
        cr_expect_eq(wait_one(p.vk, in_hand), -ECONNABORTED);
        cr_expect_eq(wait_one(p.vk, queued), -ECONNABORTED);
        cr_expect_eq(mf_client_send(p.vk, FUSE_STATFS, 1, NULL, 0, &id), -ENOTCONN);
        cr_expect_eq(mf_client_forget(p.vk, 5, 1), -ENOTCONN);
        cr_expect_eq(end_read(&p.end), with ? -ECONNABORTED : -ENODEV);
        cr_expect_eq(end_read(&p.end), with ? -ECONNABORTED : -ENODEV, "it stays so");
        cr_expect_eq(end_reply(&p.end, in_hand, 0, NULL, 0), -ENOENT);
        cr_expect_eq(mf_vkernel_bad_replies(p.vk), 0, "nobody can know");
        pair_close(&p);
    }
}

Test(vkernel, unmount_is_a_clean_end)
{
    uint64_t id;
    struct pair p;

    pair_open(&p, FUSE_ABORT_ERROR);
    id = send_one(p.vk);
    mf_vkernel_unmount(p.vk);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(end_read(&p.end), -ENODEV);
    cr_expect_eq(wait_one(p.vk, id), -ECONNABORTED);
    cr_expect_eq(mf_client_send(p.vk, FUSE_STATFS, 1, NULL, 0, &id), -ENOTCONN);
    pair_close(&p);
}

Test(vkernel, clones_of_a_dead_connection_see_its_end)
{
    struct end other;
    struct pair p;

    pair_open(&p, 0);
    mf_vkernel_abort(p.vk);
    end_clone(&other, &p.end);
    cr_expect_eq(end_read(&other), -ENODEV);
    end_close(&other);
    pair_close(&p);
}

Test(vkernel, an_end_before_init)
{
    struct mf_vkernel *vk;
    pthread_t t;
    struct end e;
    void *rc;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    end_first(&e, vk);
    cr_assert_eq(pthread_create(&t, NULL, raw_statfs, vk), 0);
    sleep_ms(20);
    mf_vkernel_abort(vk);
    pthread_join(t, &rc);
    cr_expect_eq((int)(intptr_t)rc, -ENOTCONN);
    end_close(&e);
    mf_vkernel_free(vk);
}

/* ---- time --------------------------------------------------------------------------------------- */

Test(vkernel, unread_requests_are_taken_back_at_the_time_limit)
{
    struct timespec from, to;
    struct pair p;

    pair_open(&p, 0);
    mf_vkernel_set_timeout(p.vk, 20);
    clock_gettime(CLOCK_MONOTONIC, &from);
    cr_expect_eq(mf_client_raw(p.vk, FUSE_STATFS, 1, NULL, 0, NULL, NULL), -ETIMEDOUT);
    clock_gettime(CLOCK_MONOTONIC, &to);
    cr_expect_geq((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec, 20000000);
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    pair_close(&p);
}

/* Reads one request on its own thread and does not answer it. */
static void *read_only(void *arg)
{
    return (void *)(intptr_t)end_read(arg);
}

static int ask_statfs(struct mf_vkernel *vk)
{
    return mf_client_raw(vk, FUSE_STATFS, 1, NULL, 0, NULL, NULL);
}

static int ask_lookup(struct mf_vkernel *vk)
{
    return mf_client_lookup(vk, 1, "name", NULL);
}

static int ask_open(struct mf_vkernel *vk)
{
    uint64_t fh;

    return mf_client_open(vk, 77, 0, &fh);
}

/* The client gives up on a request that was read. On a busy machine it may give up before: once more, then. */
static void give_up(struct pair *p, int (*ask)(struct mf_vkernel *vk))
{
    pthread_t t;

    cr_assert_eq(pthread_create(&t, NULL, read_only, &p->end), 0);
    for (uint32_t ms = 20; mf_vkernel_pending(p->vk) == 0; ms *= 2) {
        mf_vkernel_set_timeout(p->vk, ms);
        cr_expect_eq(ask(p->vk), -ETIMEDOUT);
    }
    pthread_join(t, NULL);
}

Test(vkernel, read_requests_stay_in_hand_after_the_time_limit)
{
    struct fuse_statfs_out out = { .st = { .blocks = 1 } };
    struct pair p;

    pair_open(&p, 0);
    give_up(&p, ask_statfs);
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    cr_expect_eq(end_answer(&p.end, 0, &out, sizeof(out)), 0, "the answer is late, not wrong");
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 0);
    pair_close(&p);
}

Test(vkernel, what_comes_too_late_is_given_back)
{
    struct fuse_entry_out entry = { .nodeid = 77, .attr = { .mode = 0100644 } };
    struct fuse_open_out open = { .fh = 88 };
    struct fuse_release_in release;
    struct pair p;

    pair_open(&p, 0);
    give_up(&p, ask_lookup);
    cr_expect_eq(end_answer(&p.end, 0, &entry, sizeof(entry)), 0);
    end_expect(&p.end, FUSE_FORGET);
    cr_expect_eq(p.end.io.msg.hdr.nodeid, 77);

    give_up(&p, ask_open);
    cr_expect_eq(end_answer(&p.end, 0, &open, sizeof(open)), 0);
    end_expect(&p.end, FUSE_RELEASE);
    cr_expect_eq(p.end.io.msg.hdr.nodeid, 77);
    memcpy(&release, p.end.io.msg.args, sizeof(release));
    cr_expect_eq(release.fh, 88);
    pair_close(&p);
}

Test(vkernel, a_wait_may_be_repeated)
{
    struct pair p;
    uint64_t id;

    pair_open(&p, 0);
    mf_vkernel_set_timeout(p.vk, 20);
    id = send_one(p.vk);
    cr_expect_eq(wait_one(p.vk, id), -ETIMEDOUT);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(wait_one(p.vk, id), -ETIMEDOUT);
    cr_expect_eq(end_answer(&p.end, -EPERM, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, id), -EPERM);
    pair_close(&p);
}

struct waiter {
    struct mf_vkernel *vk;
    uint64_t id;
};

static void *waiter_main(void *arg)
{
    struct waiter *w = arg;

    return (void *)(intptr_t)wait_one(w->vk, w->id);
}

static bool is_waited_for(struct waiter *w)
{
    bool is;

    pthread_mutex_lock(&w->vk->lock);
    is = mf__vk_known(w->vk, w->id)->collected;
    pthread_mutex_unlock(&w->vk->lock);
    return is;
}

Test(vkernel, an_answer_has_one_waiter)
{
    struct waiter w;
    struct pair p;
    pthread_t t;
    void *rc;

    pair_open(&p, 0);
    w = (struct waiter){ .vk = p.vk, .id = send_one(p.vk) };
    cr_assert_eq(pthread_create(&t, NULL, waiter_main, &w), 0);
    while (!is_waited_for(&w))
        sleep_ms(1);
    cr_expect_eq(wait_one(p.vk, w.id), -ENOENT);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, -EPERM, NULL, 0), 0);
    pthread_join(t, &rc);
    cr_expect_eq((int)(intptr_t)rc, -EPERM);
    pair_close(&p);
}

/* ---- waking readers ----------------------------------------------------------------------------- */

Test(vkernel, each_wake_ends_one_receive)
{
    struct pair p;

    pair_open(&p, 0);
    send_one(p.vk);
    p.end.ch->ops->wake(p.end.ch);
    p.end.ch->ops->wake(p.end.ch);
    cr_expect_eq(end_read(&p.end), -EINTR);
    cr_expect_eq(end_read(&p.end), -EINTR);
    end_expect(&p.end, FUSE_ACCESS);
    pair_close(&p);
}

struct blocked {
    struct end *end;
    pthread_t thread;
    atomic_int done;
    int rc;
};

static void *blocked_main(void *arg)
{
    struct blocked *b = arg;

    b->rc = end_read(b->end);
    atomic_store(&b->done, 1);
    return NULL;
}

static size_t blocked_count(struct mf_vkernel *vk)
{
    size_t n = 0;

    pthread_mutex_lock(&vk->lock);
    for (struct mf__vk_link *l = vk->readers.next; l != &vk->readers; l = l->next)
        n++;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

static void block(struct blocked *b, struct end *e, struct mf_vkernel *vk, size_t nth)
{
    *b = (struct blocked){ .end = e };
    cr_assert_eq(pthread_create(&b->thread, NULL, blocked_main, b), 0);
    while (blocked_count(vk) < nth)
        sleep_ms(1);
}

Test(vkernel, wake_reaches_only_its_channel)
{
    struct blocked here, there;
    struct end other;
    struct pair p;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    block(&there, &other, p.vk, 1);
    block(&here, &p.end, p.vk, 2);
    p.end.ch->ops->wake(p.end.ch);
    pthread_join(here.thread, NULL);
    cr_expect_eq(here.rc, -EINTR);
    cr_expect_eq(atomic_load(&there.done), 0);
    cr_expect_eq(blocked_count(p.vk), 1);
    mf_vkernel_unmount(p.vk);
    pthread_join(there.thread, NULL);
    cr_expect_eq(there.rc, -ENODEV);
    end_close(&other);
    pair_close(&p);
}

Test(vkernel, readers_of_one_channel_are_woken_one_by_one)
{
    struct blocked a, b;
    struct pair p;
    struct end second;

    pair_open(&p, 0);
    mf__channel_get(p.end.ch);
    end_open(&second, p.end.ch);
    block(&a, &p.end, p.vk, 1);
    block(&b, &second, p.vk, 2);
    p.end.ch->ops->wake(p.end.ch);
    while (atomic_load(&a.done) + atomic_load(&b.done) == 0)
        sleep_ms(1);
    cr_expect_eq(blocked_count(p.vk), 1);
    p.end.ch->ops->wake(p.end.ch);
    pthread_join(a.thread, NULL);
    pthread_join(b.thread, NULL);
    cr_expect_eq(a.rc, -EINTR);
    cr_expect_eq(b.rc, -EINTR);
    end_close(&second);
    pair_close(&p);
}

/* A reader that was woken for a request, but is told to leave before it runs, leaves the request to another. */
Test(vkernel, a_wake_up_is_passed_on)
{
    struct blocked leaves, takes;
    struct end other;
    struct pair p;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    block(&leaves, &p.end, p.vk, 1);
    block(&takes, &other, p.vk, 2);
    pthread_mutex_lock(&p.vk->lock);
    cr_expect_eq(mf__vk_post(p.vk, FUSE_STATFS, 1, NULL, 0), 0);
    ((struct mf__vk_chan *)p.end.ch->impl)->kicks++;
    pthread_mutex_unlock(&p.vk->lock);
    pthread_join(leaves.thread, NULL);
    cr_expect_eq(leaves.rc, -EINTR);
    pthread_join(takes.thread, NULL);
    cr_expect_eq(takes.rc, 0);
    cr_expect_eq(other.io.msg.hdr.opcode, FUSE_STATFS);
    end_close(&other);
    pair_close(&p);
}

Test(vkernel, one_request_wakes_one_reader)
{
    struct blocked b[3];
    struct end e[3];
    struct pair p;
    int done = 0;

    pair_open(&p, 0);
    for (size_t i = 0; i < 3; i++) {
        end_clone(&e[i], &p.end);
        block(&b[i], &e[i], p.vk, i + 1);
    }
    send_one(p.vk);
    while (done == 0) {
        sleep_ms(1);
        for (size_t i = 0; i < 3; i++)
            done += atomic_load(&b[i].done);
    }
    cr_expect_eq(done, 1);
    cr_expect_eq(blocked_count(p.vk), 2);
    mf_vkernel_unmount(p.vk);
    for (size_t i = 0; i < 3; i++) {
        pthread_join(b[i].thread, NULL);
        end_close(&e[i]);
    }
    pair_close(&p);
}

/* ---- notifications ------------------------------------------------------------------------------ */

static const struct {
    int32_t code;
    uint32_t body;
} notes[] = {
    { FUSE_NOTIFY_POLL, 8 },       { FUSE_NOTIFY_INVAL_INODE, 24 }, { FUSE_NOTIFY_INVAL_ENTRY, 16 + 4 },
    { FUSE_NOTIFY_STORE, 24 + 3 }, { FUSE_NOTIFY_DELETE, 24 + 4 },  { FUSE_NOTIFY_RESEND, 0 },
    { FUSE_NOTIFY_INC_EPOCH, 0 },  { FUSE_NOTIFY_PRUNE, 16 + 16 },  { FUSE_NOTIFY_RETRIEVE, 32 },
};

/* A notification whose lengths inside say 3 bytes of name or data, or 2 nodes. */
static int notify(struct end *e, int32_t code, uint32_t body)
{
    uint8_t msg[128] = { 0 };
    struct fuse_out_header hdr = { .len = (uint32_t)OUT_HEADER + body, .error = code };
    uint32_t three = 3, two = 2;

    memcpy(msg, &hdr, sizeof(hdr));
    if (code == FUSE_NOTIFY_INVAL_ENTRY)
        memcpy(msg + 16 + 8, &three, 4);
    if (code == FUSE_NOTIFY_DELETE || code == FUSE_NOTIFY_STORE)
        memcpy(msg + 16 + 16, &three, 4);
    if (code == FUSE_NOTIFY_PRUNE)
        memcpy(msg + 16, &two, 4);
    return e->ch->ops->write_raw(e->ch, msg, OUT_HEADER + body);
}

Test(vkernel, notifications_have_exact_sizes)
{
    struct pair p;
    uint64_t bad = 0;

    pair_open(&p, 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(notes); i++) {
        uint32_t code = (uint32_t)notes[i].code;

        cr_expect_eq(notify(&p.end, notes[i].code, notes[i].body), 0, "code %u", code);
        cr_expect_eq(mf__vkernel_notified(p.vk, code), 1, "code %u", code);
        cr_expect_eq(notify(&p.end, notes[i].code, notes[i].body + 1), -EINVAL, "code %u", code);
        bad++;
        if (notes[i].body > 0) {
            cr_expect_eq(notify(&p.end, notes[i].code, notes[i].body - 1), -EINVAL, "code %u", code);
            bad++;
        }
        cr_expect_eq(mf__vkernel_notified(p.vk, code), 1, "code %u", code);
    }
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), bad);
    pair_close(&p);
}

Test(vkernel, unknown_notifications_are_refused)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .minor = 39 };
    struct mf_vkernel *vk;
    struct end e;

    cr_assert_eq(mf_vkernel_new(&opts, &vk), 0);
    end_first(&e, vk);
    end_init(&e, 0);
    cr_expect_eq(notify(&e, 0, 0), -EINVAL);
    cr_expect_eq(notify(&e, 10, 8), -EINVAL);
    cr_expect_eq(notify(&e, -5, 0), -EINVAL);
    cr_expect_eq(notify(&e, FUSE_NOTIFY_RESEND, 0), -EINVAL, "this kernel has none");
    cr_expect_eq(notify(&e, FUSE_NOTIFY_DELETE, 28), 0);
    end_close(&e);
    mf_vkernel_free(vk);
}

Test(vkernel, the_last_notification_can_be_looked_at)
{
    uint8_t got[64], msg[64];
    int64_t len = mf__put_notify_inval_entry(msg, sizeof(msg), 1, "abc", 3, 0);
    struct pair p;

    cr_assert_gt(len, 0);
    pair_open(&p, 0);
    cr_expect_eq(p.end.ch->ops->write_raw(p.end.ch, msg, (size_t)len), 0);
    cr_expect_eq(mf__vkernel_last_notify(p.vk, got, sizeof(got)), (size_t)len);
    cr_expect_arr_eq(got, msg, (size_t)len);
    pair_close(&p);
}

Test(vkernel, notifications_after_the_end)
{
    struct pair p;

    pair_open(&p, 0);
    mf_vkernel_abort(p.vk);
    cr_expect_eq(notify(&p.end, FUSE_NOTIFY_POLL, 8), 0, "the mount is still there");
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(notify(&p.end, FUSE_NOTIFY_POLL, 8), -ENOENT);
    pair_close(&p);
}

Test(vkernel, retrieve_brings_a_request_that_needs_no_answer)
{
    struct fuse_notify_retrieve_in in;
    uint8_t msg[64];
    struct pair p;
    int64_t len = mf__put_notify_retrieve(msg, sizeof(msg), 12345, 6, 4096, 100);

    cr_assert_gt(len, 0);
    pair_open(&p, 0);
    cr_expect_eq(p.end.ch->ops->write_raw(p.end.ch, msg, (size_t)len), 0);
    end_expect(&p.end, FUSE_NOTIFY_REPLY);
    cr_expect_eq(p.end.io.msg.hdr.unique, 12345);
    cr_expect_eq(p.end.io.msg.hdr.nodeid, 6);
    memcpy(&in, p.end.io.msg.args, sizeof(in));
    cr_expect_eq(in.offset, 4096);
    cr_expect_eq(in.size, 0, "nothing is cached here");
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    pair_close(&p);
}

Test(vkernel, resend_gives_requests_in_hand_again)
{
    struct end other;
    struct pair p;
    uint64_t a, b, c;

    pair_open(&p, 0);
    end_clone(&other, &p.end);
    a = send_one(p.vk);
    b = send_one(p.vk);
    end_expect(&p.end, FUSE_ACCESS);
    end_expect(&other, FUSE_ACCESS);
    c = send_one(p.vk);
    cr_expect_eq(notify(&p.end, FUSE_NOTIFY_RESEND, 0), 0);
    cr_expect_eq(end_reply(&p.end, a, 0, NULL, 0), -ENOENT);
    end_expect(&other, FUSE_ACCESS);
    cr_expect_eq(other.io.msg.hdr.unique, a | FUSE_UNIQUE_RESEND);
    cr_expect_eq(end_reply(&other, a, 0, NULL, 0), -ENOENT, "the bit is part of the number");
    cr_expect_eq(end_answer(&other, -EPERM, NULL, 0), 0);
    cr_expect_eq(wait_one(p.vk, a), -EPERM);
    end_expect(&other, FUSE_ACCESS);
    cr_expect_eq(other.io.msg.hdr.unique, b | FUSE_UNIQUE_RESEND);
    end_expect(&other, FUSE_ACCESS);
    cr_expect_eq(other.io.msg.hdr.unique, c);
    cr_assert_eq(mf_client_interrupt(p.vk, b), 0);
    end_expect(&other, FUSE_INTERRUPT);
    cr_expect_eq(other.io.msg.hdr.unique, b | FUSE_UNIQUE_RESEND | 1);
    end_close(&other);
    pair_close(&p);
}

/* ---- anything may be written -------------------------------------------------------------------- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Mostly plausible headers, so that what follows them is looked at. */
static size_t make_garbage(uint8_t *msg, size_t room, uint64_t id, uint32_t *seed)
{
    size_t len = next_random(seed) % room;
    struct fuse_out_header hdr;

    for (size_t i = 0; i < len; i++)
        msg[i] = (uint8_t)next_random(seed);
    if (len < sizeof(hdr) || next_random(seed) % 8 == 0)
        return len;
    hdr = (struct fuse_out_header){ .len = (uint32_t)len };
    if (next_random(seed) % 2)
        hdr.error = (int32_t)(next_random(seed) % 14) - 2; /* a notification */
    else
        hdr.unique = id | next_random(seed) % 2;
    memcpy(msg, &hdr, sizeof(hdr));
    return len;
}

Test(vkernel, no_bytes_do_harm)
{
    uint32_t seed = 20240611;
    struct pair p;

    pair_open(&p, 0);
    mf_vkernel_set_timeout(p.vk, 1);
    for (int i = 0; i < 20000; i++) {
        uint32_t opcode = sizes[next_random(&seed) % MF__ARRAY_SIZE(sizes)].opcode;
        uint8_t in[64], *msg = malloc(320);
        uint64_t id = send_op(p.vk, opcode, in, request_for(opcode, in));
        size_t len;

        while (mf__vk_anything(p.vk))
            cr_assert_eq(end_read(&p.end), 0);
        len = make_garbage(msg, 320, id, &seed);
        msg = realloc(msg, len ? len : 1); /* so that one byte too far is seen */
        p.end.ch->ops->write_raw(p.end.ch, msg, len);
        free(msg);
        end_reply(&p.end, id, -EIO, NULL, 0);
        end_reply(&p.end, id | FUSE_UNIQUE_RESEND, -EIO, NULL, 0);
        while (mf__vk_anything(p.vk)) {
            cr_assert_eq(end_read(&p.end), 0);
            end_answer(&p.end, -EIO, NULL, 0);
        }
        cr_assert_neq(wait_one(p.vk, id), -ETIMEDOUT, "round %d", i);
    }
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    pair_close(&p);
}

/* ---- many at once ------------------------------------------------------------------------------- */

#define CLIENTS 6
#define SERVERS 3
#define ROUNDS 300

static void *busy_server(void *arg)
{
    struct end *e = arg;

    for (;;) {
        struct fuse_attr_out out = { .attr = { .mode = 040755 } };
        int rc = end_read(e);

        if (rc == -EINTR)
            continue;
        if (rc < 0)
            return (void *)(intptr_t)rc;
        if (e->io.msg.hdr.opcode != FUSE_GETATTR)
            continue; /* forgets, interrupts */
        out.attr.ino = e->io.msg.hdr.nodeid;
        if (end_answer(e, 0, &out, sizeof(out)) != 0)
            return NULL;
    }
}

static void *busy_client(void *arg)
{
    struct mf_vkernel *vk = arg;
    intptr_t wrong = 0;

    for (uint64_t i = 1; i <= ROUNDS; i++) {
        struct fuse_getattr_in in = { .fh = 0 };
        struct fuse_attr_out out;
        uint64_t len = sizeof(out), id;

        if (mf_client_send(vk, FUSE_GETATTR, i, &in, sizeof(in), &id) != 0)
            return (void *)-1;
        if (i % 3 == 0)
            mf_client_interrupt(vk, id);
        if (i % 4 == 0)
            mf_client_forget(vk, i, 1);
        if (mf_client_wait(vk, id, &out, &len) != 0 || out.attr.ino != i)
            wrong++;
    }
    return (void *)wrong;
}

Test(vkernel, many_clients_and_many_readers)
{
    pthread_t clients[CLIENTS], servers[SERVERS];
    struct end e[SERVERS];
    struct pair p;
    void *rc;

    pair_open(&p, FUSE_ABORT_ERROR);
    for (int i = 0; i < SERVERS; i++) {
        end_clone(&e[i], &p.end);
        cr_assert_eq(pthread_create(&servers[i], NULL, busy_server, &e[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++)
        cr_assert_eq(pthread_create(&clients[i], NULL, busy_client, p.vk), 0);
    for (int i = 0; i < 50; i++)
        e[i % SERVERS].ch->ops->wake(e[i % SERVERS].ch);
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i], &rc);
        cr_expect_eq((intptr_t)rc, 0);
    }
    for (int i = 0; mf_vkernel_pending(p.vk) > 0 && i < 5000; i++)
        sleep_ms(1);
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 0);
    mf_vkernel_abort(p.vk);
    for (int i = 0; i < SERVERS; i++) {
        pthread_join(servers[i], &rc);
        cr_expect_eq((int)(intptr_t)rc, -ECONNABORTED);
        end_close(&e[i]);
    }
    pair_close(&p);
}
