/* SPDX-License-Identifier: MIT */
/* The handshake: what is agreed upon with which kernel, and what is refused with which words. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"

static int32_t nothing(struct mf_call *call, void *user)
{
    (void)call;
    (void)user;
    return -ENOSYS;
}

static const struct mf_upcall_ops ops = { .size = sizeof(ops), .upcall = nothing };

static struct mf_session *new_session(const struct mf_session_opts *opts)
{
    struct mf_session *s = NULL;

    cr_assert_eq(mf_session_new_upcall(&ops, NULL, opts, &s, NULL), 0);
    return s;
}

static struct mf_negotiated terms_of(struct mf_session *s)
{
    struct mf_negotiated neg;

    cr_assert_eq(mf_session_negotiated(s, &neg, sizeof(neg)), 0);
    return neg;
}

/* ---- minors and flags ---------------------------------------------------------------------------- */

static struct mf_negotiated agree_with(uint32_t minor, uint64_t flags)
{
    struct fs_rig *rig = calloc(1, sizeof(*rig));
    struct mf_negotiated neg;

    fs_init(rig);
    rig->kernel.minor = minor;
    rig->kernel.flags = flags;
    fs_connect(rig);
    neg = terms_of(rig->s);
    /* The other side has understood the same. */
    cr_expect_eq(rig->vk->minor, neg.minor);
    cr_expect_eq(mf__vk_flags(rig->vk), neg.flags, "kernel has 0x%llx, session 0x%llx",
                 (unsigned long long)mf__vk_flags(rig->vk), (unsigned long long)neg.flags);
    cr_expect_eq(rig->vk->max_write, neg.max_write);
    fs_end(rig);
    free(rig);
    return neg;
}

Test(session_terms, minor_is_the_smaller_one, .timeout = 30)
{
    for (uint32_t minor = 31; minor <= 47; minor++) {
        struct mf_negotiated neg = agree_with(minor, 0);

        cr_expect_eq(neg.major, 7);
        cr_expect_eq(neg.minor, minor < 45 ? minor : 45, "kernel 7.%u: %u", minor, neg.minor);
        cr_expect_eq(neg.kernel_minor, minor);
        cr_expect_eq(neg.flags & ~neg.offered, 0);
        cr_expect_eq((neg.flags & FUSE_INIT_EXT) != 0, minor >= 36, "kernel 7.%u", minor);
        cr_expect_eq(neg.version, MF_NEGOTIATED_VERSION);
        cr_expect_eq(neg.size, sizeof(neg));
    }
    cr_expect_eq(agree_with(99, 0).minor, 45);
}

Test(session_terms, what_is_asked_for_by_default)
{
    const uint64_t always = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_ASYNC_DIO |
                            FUSE_AUTO_INVAL_DATA | FUSE_ABORT_ERROR;
    struct mf_negotiated neg = agree_with(0, 0);

    cr_expect_eq(neg.flags, always | FUSE_INIT_EXT, "0x%llx", (unsigned long long)neg.flags);
    /* Costs time where nobody uses it. */
    cr_expect_eq(neg.flags & (FUSE_POSIX_ACL | FUSE_WRITEBACK_CACHE | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS), 0);
    cr_expect_eq(neg.max_write, 256 * 4096);
    cr_expect_eq(neg.max_pages, 256);
    cr_expect_eq(neg.time_gran, 1);
}

Test(session_terms, flags_from_the_future_are_not_echoed)
{
    struct mf_negotiated neg = agree_with(46, UINT64_MAX);

    cr_expect_eq(neg.offered, UINT64_MAX);
    cr_expect_eq(neg.flags, agree_with(0, 0).flags);
}

Test(session_terms, a_kernel_that_offers_nothing_is_served)
{
    struct mf_negotiated neg = agree_with(31, FUSE_ASYNC_READ);

    cr_expect_eq(neg.flags, FUSE_ASYNC_READ);
    /* Without MAX_PAGES a request has 32 pages at most. */
    cr_expect_eq(neg.max_write, 32 * 4096);
    cr_expect_eq(neg.max_pages, 32);
}

Test(session_terms, upper_flags_need_init_ext)
{
    /* The kernel's offer of the upper word is not valid without the bit that announces it. */
    struct mf_negotiated neg = agree_with(40, (UINT64_MAX & ~FUSE_INIT_EXT) | FUSE_PASSTHROUGH);

    cr_expect_eq(neg.flags >> 32, 0);
    cr_expect_eq(neg.flags & FUSE_INIT_EXT, 0);
}

Test(session_terms, an_old_kernel_is_refused_in_words)
{
    const uint32_t minors[] = { 1, 8, 12, 23, 30 };

    for (size_t i = 0; i < MF__ARRAY_SIZE(minors); i++) {
        struct mf_vkernel_opts o = { .size = sizeof(o), .minor = minors[i] };
        struct mf_error err = { .size = sizeof(err) };
        struct mf_session *s = new_session(NULL);
        struct mf_negotiated neg;
        struct mf_vkernel *vk;
        char text[16];

        cr_assert_eq(mf_vkernel_new(&o, &vk), 0);
        cr_expect_eq(mf_session_attach_vkernel(s, vk, &err), -EPROTO);
        snprintf(text, sizeof(text), "7.%u", minors[i]);
        cr_expect(strstr(err.text, text) && strstr(err.text, "7.31"), "text: %s", err.text);
        cr_expect_eq(err.code, -EPROTO);
        cr_expect_eq(mf_session_negotiated(s, &neg, sizeof(neg)), -ENOTCONN);
        cr_expect_eq(mf_session_run(s), -ENOTCONN);
        mf_session_free(s);
        cr_expect_eq(mf_vkernel_pending(vk), 0, "INIT was not answered");
        mf_vkernel_free(vk);
    }
}

Test(session_terms, options_reach_the_terms)
{
    struct fs_rig *rig = calloc(1, sizeof(*rig));
    struct mf_negotiated neg;

    fs_init(rig);
    rig->opts.want = FUSE_CACHE_SYMLINKS | FUSE_DIRECT_IO_ALLOW_MMAP;
    rig->opts.unwant = FUSE_ASYNC_READ | FUSE_AUTO_INVAL_DATA;
    rig->opts.flags = MF_OPT_WRITEBACK;
    rig->opts.max_write = 8 * 4096;
    rig->opts.max_readahead = 16384;
    rig->opts.max_background = 77;
    rig->opts.time_gran = 1000;
    rig->opts.acl = MF_ACL_ROOT_AND_OWNER;
    fs_connect(rig);
    neg = terms_of(rig->s);
    cr_expect_eq(neg.flags & rig->opts.want, rig->opts.want);
    cr_expect_eq(neg.flags & rig->opts.unwant, 0);
    cr_expect(neg.flags & FUSE_WRITEBACK_CACHE);
    cr_expect_eq(neg.max_write, 8 * 4096);
    cr_expect_eq(neg.max_pages, 8);
    cr_expect_eq(neg.max_readahead, 16384);
    cr_expect_eq(neg.max_background, 77);
    cr_expect_eq(neg.time_gran, 1000);
    cr_expect_eq(neg.acl, MF_ACL_ROOT_AND_OWNER);
    cr_expect_eq(neg.owner_uid, getuid());
    cr_expect_eq(neg.owner_gid, getgid());
    cr_expect_eq(neg.transport, MF_TRANSPORT_MEMORY);
    cr_expect_eq(neg.implemented, fs_operations());
    fs_end(rig);
    free(rig);
}

Test(session_terms, wishes_that_cannot_be_met_are_refused)
{
    const struct {
        uint32_t minor;
        uint64_t want;
    } cases[] = {
        { 36, FUSE_PASSTHROUGH },   /* the kernel does not offer it */
        { 45, 1ull << 60 },         /* nobody does */
        { 45, FUSE_HAS_INODE_DAX }, /* the kernel does not */
        { 45, FUSE_OVER_IO_URING }, /* offered or not, it is not for options to ask */
        { 45, FUSE_SUBMOUNTS },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        struct mf_session_opts o = { .size = sizeof(o), .want = cases[i].want };
        struct mf_vkernel_opts k = { .size = sizeof(k), .minor = cases[i].minor };
        struct mf_error err = { .size = sizeof(err) };
        struct mf_session *s = new_session(&o);
        struct mf_vkernel *vk;
        char text[32];

        cr_assert_eq(mf_vkernel_new(&k, &vk), 0);
        cr_expect_eq(mf_session_attach_vkernel(s, vk, &err), -ENOTSUP, "case %zu", i);
        snprintf(text, sizeof(text), "0x%llx", (unsigned long long)cases[i].want);
        cr_expect(strstr(err.text, text), "case %zu: %s", i, err.text);
        mf_session_free(s);
        mf_vkernel_free(vk);
    }
}

/* ---- the answer's bytes, and first messages that are none ---------------------------------------------- */

/* A channel whose one message the test makes, and whose answer it keeps. */
static struct {
    uint8_t msg[256];
    size_t len;
    int error;
    size_t sends;
    uint8_t body[256];
    size_t body_len;
} wire;

static int wire_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    (void)ch;
    memcpy(spare->recv, wire.msg, wire.len);
    if (mf__msg_split(&spare->msg, spare->recv, wire.len) < 0)
        spare->msg.hdr.opcode = 0;
    *got = spare;
    return 0;
}

static int wire_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    (void)ch;
    (void)io;
    (void)unique;
    wire.sends++;
    wire.error = error;
    wire.body_len = mf__vk_gather(wire.body, 0, sizeof(wire.body), iov, n);
    return 0;
}

static void wire_close(struct mf__channel *ch)
{
    free(ch);
}

static const struct mf__transport wire_transport = {
    .name = "wire", .kind = MF_TRANSPORT_MEMORY, .receive = wire_receive, .send = wire_send, .close = wire_close
};

static struct mf_session *wire_session(const struct mf_session_opts *opts)
{
    struct mf_session *s = new_session(opts);
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    ch->ops = &wire_transport;
    ch->fd = -1;
    ch->refs = 1;
    cr_assert_eq(mf__channels_add(s, ch), 0);
    return s;
}

static void wire_message(uint32_t opcode, const void *body, size_t len)
{
    struct fuse_in_header hdr = { .len = (uint32_t)(sizeof(hdr) + len), .opcode = opcode, .unique = 2 };

    memset(&wire, 0, sizeof(wire));
    memcpy(wire.msg, &hdr, sizeof(hdr));
    if (len)
        memcpy(wire.msg + sizeof(hdr), body, len);
    wire.len = hdr.len;
}

Test(session_terms, the_answer_to_init)
{
    struct mf_session_opts o = { .size = sizeof(o),
                                 .readers = 1,
                                 .max_write = 65536,
                                 .max_readahead = 1u << 30,
                                 .max_background = 1000,
                                 .time_gran = 100,
                                 .want = FUSE_PASSTHROUGH };
    struct mf_session *s = wire_session(&o);
    struct fuse_init_in in = {
        .major = 7, .minor = 46, .max_readahead = 131072, .flags = UINT32_MAX, .flags2 = UINT32_MAX
    };
    struct fuse_init_out out;

    wire_message(FUSE_INIT, &in, sizeof(in));
    cr_assert_eq(mf__handshake(s, NULL), 0);
    cr_expect_eq(wire.sends, 1);
    cr_expect_eq(wire.error, 0);
    cr_assert_eq(wire.body_len, 64);
    memcpy(&out, wire.body, sizeof(out));
    cr_expect_eq(out.major, 7);
    cr_expect_eq(out.minor, 45);
    cr_expect_eq(out.max_write, 65536);
    cr_expect_eq(out.max_pages, 16);
    cr_expect_eq(out.max_readahead, 131072, "more than the kernel offered");
    cr_expect_eq(out.max_background, 1000);
    cr_expect_eq(out.congestion_threshold, 750);
    cr_expect_eq(out.time_gran, 100);
    cr_expect_eq(out.max_stack_depth, 1);
    cr_expect_eq(out.flags | (uint64_t)out.flags2 << 32, s->terms.flags);
    cr_expect(out.flags & (uint32_t)FUSE_INIT_EXT);
    for (size_t i = 0; i < sizeof(out.unused); i++)
        cr_expect_eq(((uint8_t *)out.unused)[i], 0);
    mf_session_free(s);
}

Test(session_terms, a_first_message_that_is_no_init)
{
    const struct fuse_init_in old = { .major = 6, .minor = 45 };
    const struct fuse_init_in newer = { .major = 8, .minor = 0 };
    const uint8_t bytes[16] = { 7 };
    struct mf_error err = { .size = sizeof(err) };
    const struct {
        uint32_t opcode;
        const void *body;
        size_t len;
        const char *text;
    } cases[] = {
        { FUSE_LOOKUP, "x", 2, "opcode 1" },         { FUSE_INIT, bytes, 3, "no INIT" },
        { FUSE_INIT, NULL, 0, "no INIT" },           { FUSE_INIT, &old, sizeof(old), "6.45" },
        { FUSE_INIT, &newer, sizeof(newer), "8.0" },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        struct mf_session *s = wire_session(NULL);

        wire_message(cases[i].opcode, cases[i].body, cases[i].len);
        cr_expect_eq(mf__handshake(s, &err), -EPROTO, "case %zu", i);
        cr_expect(strstr(err.text, cases[i].text), "case %zu: %s", i, err.text);
        cr_expect_eq(wire.sends, 1);
        cr_expect_lt(wire.error, 0);
        mf_session_free(s);
    }
}

/* ---- options ------------------------------------------------------------------------------------------- */

struct bad_option {
    size_t at;
    uint32_t value;
    const char *text;
};

#define OPTION(field, number)                                   \
    {                                                           \
        offsetof(struct mf_session_opts, field), number, #field \
    }

Test(session_terms, options_out_of_range_are_named)
{
    static const struct bad_option bad[] = {
        OPTION(readers, 257),
        OPTION(readers, UINT32_MAX),
        OPTION(clone_fd, 3),
        OPTION(uring, 3),
        OPTION(acl, 3),
        OPTION(max_write, 1),
        OPTION(max_write, 4095),
        OPTION(max_write, 4097),
        OPTION(max_write, (1u << 20) + 4096),
        OPTION(time_gran, 1000000001),
        OPTION(max_outstanding, 1),
        OPTION(max_outstanding, 3),
        OPTION(max_outstanding, 65537),
        OPTION(max_outstanding, UINT32_MAX),
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(bad); i++) {
        struct mf_session_opts o = { .size = sizeof(o) };
        struct mf_error err = { .size = sizeof(err) };
        struct mf_session *s = (void *)&o;

        memcpy((uint8_t *)&o + bad[i].at, &bad[i].value, sizeof(uint32_t));
        cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL, "%s = %u", bad[i].text, bad[i].value);
        cr_expect(strstr(err.text, bad[i].text), "%s = %u: %s", bad[i].text, bad[i].value, err.text);
        cr_expect_eq(err.code, -EINVAL);
        cr_expect_null(s);
    }
}

Test(session_terms, options_at_their_limits_are_taken)
{
    static const struct bad_option good[] = {
        OPTION(readers, 256), OPTION(max_write, 4096),        OPTION(max_write, 1u << 20),
        OPTION(time_gran, 1), OPTION(time_gran, 1000000000),  OPTION(max_outstanding, 4),
        OPTION(clone_fd, 2),  OPTION(max_outstanding, 65536), OPTION(acl, 2),
        OPTION(uring, 1),
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(good); i++) {
        struct mf_session_opts o = { .size = sizeof(o) };

        memcpy((uint8_t *)&o + good[i].at, &good[i].value, sizeof(uint32_t));
        mf_session_free(new_session(&o));
    }
}

Test(session_terms, options_that_exclude_each_other)
{
    struct mf_session_opts o = { .size = sizeof(o), .flags = MF_OPT_INLINE, .readers = 2 };
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s;

    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL);
    cr_expect(strstr(err.text, "MF_OPT_INLINE"), "%s", err.text);
    o.readers = 0;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL);
    o.readers = 1;
    cr_assert_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), 0);
    mf_session_free(s);
}

Test(session_terms, mount_options_are_checked_before_the_mount)
{
    struct mf_session_opts o = { .size = sizeof(o), .mount_options = "ro,allow_otter" };
    struct mf_error err = { .size = sizeof(err) };
    char name[400];
    struct mf_session *s;

    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL);
    cr_expect(strstr(err.text, "allow_otter"), "%s", err.text);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    o.mount_options = NULL;
    o.fsname = name;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL);
    cr_expect(strstr(err.text, "fsname"), "%s", err.text);
    o.fsname = NULL;
    o.subtype = name;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, &err), -EINVAL);
    cr_expect(strstr(err.text, "subtype"), "%s", err.text);
}

/* ---- structures that grow ------------------------------------------------------------------------------ */

struct bigger_opts {
    struct mf_session_opts opts;
    uint64_t tail[2];
};

Test(session_terms, options_of_other_versions)
{
    struct bigger_opts big = { .opts = { .size = sizeof(big), .max_write = 8192 } };
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s = new_session(&big.opts);

    cr_expect_eq(s->opts.max_write, 8192);
    cr_expect_eq(s->opts.size, sizeof(struct mf_session_opts));
    mf_session_free(s);
    big.tail[1] = 1;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &big.opts, &s, &err), -E2BIG);
    cr_expect(strstr(err.text, "mf_session_opts"), "%s", err.text);

    /* An older caller's structure ends earlier: what lies behind it is not looked at. */
    big.opts.size = offsetof(struct mf_session_opts, time_gran);
    big.opts.time_gran = UINT32_MAX;
    s = new_session(&big.opts);
    cr_expect_eq(s->opts.max_write, 8192);
    cr_expect_eq(s->opts.time_gran, 0);
    mf_session_free(s);
    big.opts.size = 0;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &big.opts, &s, &err), -EINVAL);
    big.opts.size = 3;
    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &big.opts, &s, &err), -EINVAL);
}

Test(session_terms, operation_tables_of_other_versions)
{
    struct {
        struct mf_ops ops;
        void (*tail)(void);
    } big = { .ops = { .size = sizeof(big) } };
    struct {
        struct mf_upcall_ops ops;
        uint64_t tail;
    } up = { .ops = { .size = sizeof(up), .upcall = nothing } };
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s;

    cr_assert_eq(mf_session_new(&big.ops, NULL, NULL, &s, &err), 0);
    mf_session_free(s);
    big.ops.size = sizeof(uint32_t);
    cr_assert_eq(mf_session_new(&big.ops, NULL, NULL, &s, &err), 0, "an empty table is a table");
    mf_session_free(s);
    big.ops.size = sizeof(big);
    big.tail = (void (*)(void))abort;
    s = (void *)&big;
    cr_expect_eq(mf_session_new(&big.ops, NULL, NULL, &s, &err), -E2BIG);
    cr_expect_null(s);
    cr_expect(strstr(err.text, "mf_ops"), "%s", err.text);

    cr_assert_eq(mf_session_new_upcall(&up.ops, NULL, NULL, &s, &err), 0);
    mf_session_free(s);
    up.tail = 1;
    cr_expect_eq(mf_session_new_upcall(&up.ops, NULL, NULL, &s, &err), -E2BIG);
    up.ops.size = sizeof(uint32_t);
    cr_expect_eq(mf_session_new_upcall(&up.ops, NULL, NULL, &s, &err), -EINVAL);
    up.ops = (struct mf_upcall_ops){ .size = sizeof(up.ops) };
    cr_expect_eq(mf_session_new_upcall(&up.ops, NULL, NULL, &s, &err), -EINVAL, "no upcall");
}

Test(session_terms, what_is_told_fits_the_caller)
{
    struct fs_rig *rig = calloc(1, sizeof(*rig));
    struct mf_negotiated neg;
    struct mf_info info;

    fs_init(rig);
    fs_connect(rig);
    memset(&neg, 0xee, sizeof(neg));
    cr_expect_eq(mf_session_negotiated(rig->s, &neg, offsetof(struct mf_negotiated, flags)), 0);
    cr_expect_eq(neg.size, offsetof(struct mf_negotiated, flags));
    cr_expect_eq(neg.minor, 45);
    cr_expect_eq(neg.flags, 0xeeeeeeeeeeeeeeeeull, "written beyond what the caller has");
    cr_expect_eq(mf_session_negotiated(rig->s, &neg, 3), -EINVAL);

    memset(&info, 0xee, sizeof(info));
    info.size = offsetof(struct mf_info, transport);
    cr_expect_eq(mf_session_info(rig->s, &info), 0);
    cr_expect_eq(info.readers, 1);
    cr_expect_eq(info.transport, 0xeeeeeeeeu);
    info.size = 4;
    cr_expect_eq(mf_session_info(rig->s, &info), -EINVAL);
    fs_end(rig);
    free(rig);
}

Test(session_terms, connecting_out_of_order)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s = new_session(NULL);
    struct mf_vkernel *vk, *other;
    struct mf_negotiated neg;
    int fd = -1, null = open("/dev/null", O_RDWR | O_CLOEXEC);

    cr_expect_eq(mf_session_negotiated(s, &neg, sizeof(neg)), -ENOTCONN);
    cr_expect_eq(mf_session_clone_fd(s, &fd), -ENOTCONN);
    cr_expect_eq(mf_session_run(s), -ENOTCONN);
    cr_expect_eq(mf_session_start(s), -ENOTCONN);
    cr_expect_eq(mf_session_finish(s), -ENOTCONN);
    cr_expect_eq(mf_session_unmount(s), -ENOTCONN);
    cr_expect_eq(mf_session_add_reader(s), -ENOTCONN);
    cr_expect_null(mf_session_mountpoint(s));
    cr_expect_eq(mf_session_mount(s, NULL, &err), -EINVAL);
    cr_expect_eq(mf_session_mount(s, "", &err), -EINVAL);
    cr_expect_eq(mf_session_attach_fds(s, &fd, 1, &err), -EBADF);
    cr_expect_eq(mf_session_attach_fds(s, &fd, 0, &err), -EINVAL);
    cr_expect_eq(mf_session_attach_fds(s, &null, 1, &err), -ENOTTY);
    cr_expect(strstr(err.text, "/dev/fuse"), "%s", err.text);
    cr_expect_geq(fcntl(null, F_GETFD), 0, "the caller's descriptor was closed");

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    cr_assert_eq(mf_vkernel_new(NULL, &other), 0);
    cr_expect_eq(mf_session_attach_vkernel(s, vk, &err), 0, "%s", err.text);
    cr_expect_eq(mf_session_clone_fd(s, &fd), -ENOTSUP);
    cr_expect_eq(mf_session_attach_vkernel(s, other, &err), -EBUSY);
    cr_expect_eq(mf_session_attach_fds(s, &null, 1, &err), -EBUSY);
    cr_expect_eq(mf_session_mount(s, "/nowhere", &err), -EBUSY);
    mf_session_free(s);
    mf_session_free(NULL);
    close(null);
    mf_vkernel_free(vk);
    mf_vkernel_free(other);
}

/* ---- joining with terms -------------------------------------------------------------------------------- */

static struct mf_negotiated good_terms(void)
{
    struct mf_negotiated neg = agree_with(0, 0);

    neg.transport = MF_TRANSPORT_DEVICE;
    return neg;
}

static void refused(const struct mf_negotiated *neg, int code, const char *text)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s = NULL;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    cr_expect_eq(mf_negotiated_check(neg, &err), code, "%s: check says %s", text, err.text);
    cr_expect(strstr(err.text, text), "wanted '%s': %s", text, err.text);
    memset(err.text, 0, sizeof(err.text));
    cr_expect_eq(mf_session_from_fd_initialized_upcall(&ops, NULL, NULL, null, neg, &s, &err), code, "%s", text);
    cr_expect(strstr(err.text, text), "wanted '%s': %s", text, err.text);
    cr_expect_null(s);
    cr_expect_geq(fcntl(null, F_GETFD), 0, "the caller's descriptor was closed");
    close(null);
}

Test(session_terms, bad_terms_are_refused_in_words)
{
    const struct mf_negotiated good = good_terms();
    struct mf_negotiated neg;
    struct {
        struct mf_negotiated neg;
        uint64_t tail;
    } big = { .neg = good, .tail = 1 };

    cr_expect_eq(mf_negotiated_check(&good, NULL), 0);
    neg = good, neg.size = 8;
    refused(&neg, -EINVAL, "too short");
    neg = good, neg.version = 2;
    refused(&neg, -EINVAL, "format");
    neg = good, neg.major = 8;
    refused(&neg, -EINVAL, "too old");
    neg = good, neg.minor = 30;
    refused(&neg, -EINVAL, "too old");
    neg = good, neg.max_write = 0;
    refused(&neg, -EINVAL, "max_write");
    neg = good, neg.max_write = 5000;
    refused(&neg, -EINVAL, "max_write");
    neg = good, neg.max_write = 2u << 20;
    refused(&neg, -EINVAL, "max_write");
    neg = good, neg.acl = 3;
    refused(&neg, -EINVAL, "ACL");
    neg = good, neg.minor = 46;
    refused(&neg, -EPROTONOSUPPORT, "7.46");
    neg = good, neg.flags |= 1ull << 62;
    refused(&neg, -EPROTONOSUPPORT, "flags");
    neg = good, neg.transport = MF_TRANSPORT_URING;
    cr_expect_eq(mf_negotiated_check(&neg, NULL), 0, "FORGET and INTERRUPT stay on the device, beside the rings");
    neg = good, neg.transport = 17;
    refused(&neg, -EPROTONOSUPPORT, "transport");
    big.neg.size = sizeof(big);
    refused(&big.neg, -E2BIG, "newer");
}

Test(session_terms, terms_of_an_older_library_have_no_connection)
{
    struct mf_negotiated good = good_terms();
    /* Exactly so many bytes: one more is not the library's to read. */
    size_t size = offsetof(struct mf_negotiated, connection);
    struct mf_negotiated *old = malloc(size);
    struct mf_error err = { .size = sizeof(err) };
    struct mf_session *s;

    good.size = (uint32_t)size;
    memcpy(old, &good, size);
    cr_expect_eq(mf_negotiated_check(old, &err), 0, "%s", err.text);
    cr_expect_eq(mf_session_from_fd_initialized_upcall(&ops, NULL, NULL, -1, old, &s, &err), -EBADF, "%s", err.text);
    free(old);
}

static void count_destroy(void *user)
{
    ++*(int *)user;
}

Test(session_terms, a_failed_join_leaves_everything_to_the_caller)
{
    struct mf_ops typed = { .size = sizeof(typed), .destroy = count_destroy };
    struct mf_negotiated neg = good_terms();
    struct mf_error err = { .size = sizeof(err) };
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), destroyed = 0;
    struct mf_session *s = (void *)&err;

    cr_expect_eq(mf_session_from_fd_initialized(&typed, &destroyed, NULL, null, &neg, &s, &err), -ENOTTY);
    cr_expect(strstr(err.text, "/dev/fuse"), "%s", err.text);
    cr_expect_null(s);
    cr_expect_eq(destroyed, 0, "nothing was made of it");
    cr_expect_geq(fcntl(null, F_GETFD), 0);
    close(null);
    cr_expect_eq(mf_session_from_fd_initialized(&typed, &destroyed, NULL, -1, &neg, &s, &err), -EBADF);
}

Test(session_terms, errors_are_optional)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 1000 };
    struct mf_session *s;
    struct mf_error *none = NULL;

    cr_expect_eq(mf_session_new_upcall(&ops, NULL, &o, &s, none), -EINVAL);
}
