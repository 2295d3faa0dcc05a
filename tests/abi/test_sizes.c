/* SPDX-License-Identifier: MIT */
/*
 * Size-first structures: a program that is older than the library gives a smaller one, a newer program a larger
 * one. What the program lacks counts as zero; what the library does not know has to be zero.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <manifuse/manifuse.h>
#include <manifuse/testing.h>
#include <string.h>

static void getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    struct mf_attr attr = { .mode = 0040755, .nlink = 2 };

    (void)node, (void)fh, (void)user;
    mf_reply_attr(req, &attr, 0);
}

static void statfs(struct mf_req *req, uint64_t node, void *user)
{
    struct mf_statfs st = { .size = sizeof(st), .bsize = 512, .frsize = 512, .blocks = 77 };

    (void)node, (void)user;
    mf_reply_statfs(req, &st);
}

/* Structures of a program that is 16 bytes ahead of the library. */
struct newer_ops {
    struct mf_ops ops;
    uint8_t tail[16];
};
struct newer_opts {
    struct mf_session_opts opts;
    uint8_t tail[16];
};

static int try_ops(const struct mf_ops *ops)
{
    struct mf_session *s = NULL;
    int rc = mf_session_new(ops, NULL, NULL, &s, NULL);

    mf_session_free(s);
    return rc;
}

static int try_opts(const struct mf_session_opts *opts)
{
    struct mf_ops ops = { .size = sizeof(ops), .getattr = getattr };
    struct mf_session *s = NULL;
    int rc = mf_session_new(&ops, NULL, opts, &s, NULL);

    mf_session_free(s);
    return rc;
}

Test(sizes, ops_of_a_newer_program)
{
    struct newer_ops newer = { .ops = { .size = sizeof(newer), .getattr = getattr } };

    cr_assert_eq(try_ops(&newer.ops), 0);
    newer.tail[15] = 1;
    cr_assert_eq(try_ops(&newer.ops), -E2BIG);
}

Test(sizes, ops_without_a_size)
{
    struct mf_ops ops = { .getattr = getattr };

    cr_assert_eq(try_ops(&ops), -EINVAL);
    ops.size = 2;
    cr_assert_eq(try_ops(&ops), -EINVAL);
}

/* A table that ends before statfs: the pointer that lies there all the same is not the program's. */
Test(sizes, ops_of_an_older_program)
{
    struct mf_ops ops = { .size = offsetof(struct mf_ops, statfs), .getattr = getattr, .statfs = statfs };
    struct mf_session *s = NULL;
    struct mf_vkernel *vk = NULL;
    struct mf_statfs st = { .size = sizeof(st) };
    struct mf_attr attr;

    cr_assert_eq(mf_vkernel_new(NULL, &vk), 0);
    cr_assert_eq(mf_session_new(&ops, NULL, NULL, &s, NULL), 0);
    cr_assert_eq(mf_session_attach_vkernel(s, vk, NULL), 0);
    cr_assert_eq(mf_session_start(s), 0);
    cr_expect_eq(mf_client_getattr(vk, MF_ROOT, &attr), 0);
    cr_expect_eq(attr.mode, 0040755);
    (void)mf_client_statfs(vk, &st);
    cr_expect_neq(st.blocks, 77, "a handler beyond the table's size was called");
    mf_session_stop(s);
    cr_expect_eq(mf_session_finish(s), 0);
    mf_session_free(s);
    mf_vkernel_free(vk);
}

Test(sizes, options_of_a_newer_program)
{
    struct newer_opts newer;

    memset(&newer, 0, sizeof(newer));
    mf_session_opts_init(&newer.opts, sizeof(newer));
    cr_assert_eq(newer.opts.size, sizeof(newer));
    cr_assert_eq(try_opts(&newer.opts), 0);
    newer.tail[0] = 1;
    cr_assert_eq(try_opts(&newer.opts), -E2BIG);
}

/* What lies beyond the structure's size must not be looked at: here it would be refused. */
Test(sizes, options_of_an_older_program)
{
    struct mf_session_opts opts;

    memset(&opts, 0xff, sizeof(opts));
    mf_session_opts_init(&opts, offsetof(struct mf_session_opts, clone_fd));
    cr_assert_eq(opts.size, offsetof(struct mf_session_opts, clone_fd));
    cr_expect_eq(opts.clone_fd, UINT32_MAX, "initialised beyond the size that was given");
    cr_assert_eq(try_opts(&opts), 0);
}

static struct mf_session *connected(struct mf_vkernel **vk)
{
    struct mf_ops ops = { .size = sizeof(ops), .getattr = getattr };
    struct mf_session *s = NULL;

    cr_assert_eq(mf_vkernel_new(NULL, vk), 0);
    cr_assert_eq(mf_session_new(&ops, NULL, NULL, &s, NULL), 0);
    cr_assert_eq(mf_session_attach_vkernel(s, *vk, NULL), 0);
    return s;
}

Test(sizes, results_end_where_the_program_says)
{
    struct mf_vkernel *vk;
    struct mf_session *s = connected(&vk);
    struct mf_negotiated neg;
    struct mf_info info;

    memset(&neg, 0x5a, sizeof(neg));
    cr_assert_eq(mf_session_negotiated(s, &neg, offsetof(struct mf_negotiated, flags)), 0);
    cr_expect_eq(neg.major, 7);
    cr_expect_eq(neg.flags, 0x5a5a5a5a5a5a5a5aull, "written beyond the size that was given");

    memset(&info, 0x5a, sizeof(info));
    info.size = offsetof(struct mf_info, connection);
    cr_assert_eq(mf_session_info(s, &info), 0);
    cr_expect_eq(info.transport, MF_TRANSPORT_MEMORY);
    cr_expect_eq(info.connection, 0x5a5a5a5a5a5a5a5aull, "written beyond the size that was given");

    mf_session_free(s);
    mf_vkernel_free(vk);
}

Test(sizes, terms_of_another_library)
{
    struct mf_vkernel *vk;
    struct mf_session *s = connected(&vk);
    struct {
        struct mf_negotiated neg;
        uint8_t tail[8];
    } newer;

    memset(&newer, 0, sizeof(newer));
    cr_assert_eq(mf_session_negotiated(s, &newer.neg, sizeof(newer.neg)), 0);
    cr_expect_eq(mf_negotiated_check(&newer.neg, NULL), 0);
    newer.neg.size = sizeof(newer);
    cr_expect_eq(mf_negotiated_check(&newer.neg, NULL), 0);
    newer.tail[3] = 1;
    cr_expect_eq(mf_negotiated_check(&newer.neg, NULL), -E2BIG);
    newer.neg.size = 4;
    cr_expect_eq(mf_negotiated_check(&newer.neg, NULL), -EINVAL);

    mf_session_free(s);
    mf_vkernel_free(vk);
}

/* An error text is optional, and cut to the room that the program has for it. */
Test(sizes, errors_end_where_the_program_says)
{
    struct mf_session_opts opts;
    struct mf_ops ops = { .size = sizeof(ops), .getattr = getattr };
    struct mf_session *s = NULL;
    struct mf_error err;

    mf_session_opts_init(&opts, sizeof(opts));
    opts.clone_fd = 99;
    memset(&err, 0x5a, sizeof(err));
    err.size = offsetof(struct mf_error, text) + 8;
    cr_assert_eq(mf_session_new(&ops, NULL, &opts, &s, &err), -EINVAL);
    cr_expect_eq(err.code, -EINVAL);
    cr_expect_eq(err.text[7], '\0');
    cr_expect_eq(err.text[8], 0x5a, "written beyond the size that was given");
    cr_expect_eq(mf_session_new(&ops, NULL, &opts, &s, NULL), -EINVAL);
}
