/* SPDX-License-Identifier: MIT */
/* Counters, messages that do not decode, log lines, notifications. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"
#include "wire_message.h"

static struct fs_rig rig;

static void setup(void)
{
    fs_init(&rig);
}

TestSuite(session_stats, .init = setup, .timeout = 30);

static int step_ask(uint32_t opcode, const void *in, size_t len)
{
    uint64_t id = fs_send(&rig, opcode, FS_FILE0, in, len);

    fs_step(&rig, 0);
    return fs_wait(&rig, id);
}

/* ---- counting --------------------------------------------------------------------------------------------- */

FS_TEST(session_stats, each_request_is_counted_once)
{
    struct fuse_getattr_in getattr = { .fh = 0 };
    struct fuse_read_in read = { .size = 100 };
    struct mf_reader_stats st;

    fs_step_init(&rig, 2);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(step_ask(FUSE_GETATTR, &getattr, sizeof(getattr)), 0);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(step_ask(FUSE_READ, &read, sizeof(read)), 0);
    cr_expect_eq(step_ask(FUSE_LOOKUP, "nothing", 8), -ENOENT);
    cr_expect_eq(step_ask(FUSE_MKDIR, NULL, 0), -EIO);
    cr_expect_eq(step_ask(200, NULL, 0), -ENOSYS);
    cr_expect_eq(mf_client_forget(rig.vk, 5, 1), 0);
    fs_step(&rig, 0);

    st = fs_stats(&rig, 0);
    cr_expect_eq(st.size, sizeof(st));
    cr_expect_eq(st.requests, 12);
    cr_expect_eq(st.replies, 11);
    cr_expect_eq(st.errors, 3);
    cr_expect_eq(st.in_flight, 0);
    cr_expect_eq(st.malformed, 1);
    cr_expect_eq(st.forgotten, 0);
    cr_expect_eq(st.ops[FUSE_GETATTR].requests, 5);
    cr_expect_eq(st.ops[FUSE_GETATTR].errors, 0);
    cr_expect_eq(st.ops[FUSE_GETATTR].bytes_in, 5 * (40 + sizeof(getattr)));
    cr_expect_eq(st.ops[FUSE_GETATTR].bytes_out, 5 * (16 + 104));
    cr_expect_eq(st.ops[FUSE_READ].bytes_out, 3 * (16 + fs_size(FS_FILE0)));
    cr_expect_eq(st.ops[FUSE_LOOKUP].errors, 1);
    cr_expect_eq(st.ops[FUSE_LOOKUP].bytes_out, 16);
    cr_expect_eq(st.ops[FUSE_FORGET].requests, 1);
    cr_expect_eq(st.ops[FUSE_FORGET].bytes_out, 0);
    cr_expect_eq(st.ops[0].requests, 1, "what is beyond the table");
    cr_expect_eq(fs_stats(&rig, 1).requests, 0);
}

static void expect_sums(uint32_t reader)
{
    struct mf_reader_stats st = fs_stats(&rig, reader);
    struct mf_op_stats sum = { 0 };

    for (int i = 0; i < MF_STATS_OPS; i++) {
        sum.requests += st.ops[i].requests;
        sum.errors += st.ops[i].errors;
        sum.bytes_in += st.ops[i].bytes_in;
        sum.bytes_out += st.ops[i].bytes_out;
    }
    cr_expect_eq(sum.requests, st.requests);
    cr_expect_eq(sum.errors, st.errors);
    cr_expect_eq(sum.bytes_in, st.bytes_in);
    cr_expect_eq(sum.bytes_out, st.bytes_out);
}

FS_TEST(session_stats, operations_add_up_to_readers)
{
    static struct wire w;

    rig.implemented = UINT64_MAX;
    fs_step_init(&rig, 1);
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        if (!mf__opcode(opcode)->slot || mf__opcode(opcode)->reply == MF__REPLY_NEVER)
            continue;
        wire_sample(&w, opcode);
        step_ask(opcode, w.bytes + 40, w.len - 40);
    }
    expect_sums(0);
}

static uint64_t timed(uint32_t reader)
{
    struct mf_reader_stats st = fs_stats(&rig, reader);
    uint64_t n = 0;

    for (int i = 0; i < MF_STATS_BUCKETS; i++)
        n += st.latency[i];
    return n;
}

FS_TEST(session_stats, every_seventeenth_request_is_timed)
{
    struct fuse_getattr_in in = { .fh = 0 };

    fs_step_init(&rig, 1);
    for (int i = 0; i < 170; i++)
        step_ask(FUSE_GETATTR, &in, sizeof(in));
    cr_expect_eq(timed(0), 10);
}

FS_TEST(session_stats, timing_may_be_off)
{
    struct fuse_getattr_in in = { .fh = 0 };

    rig.opts.flags = MF_OPT_NO_LATENCY;
    fs_step_init(&rig, 1);
    for (int i = 0; i < 64; i++)
        step_ask(FUSE_GETATTR, &in, sizeof(in));
    cr_expect_eq(timed(0), 0);
}

static int32_t slow(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    (void)r;
    usleep(3000);
    return FS_DEFAULT;
}

FS_TEST(session_stats, latency_is_that_of_the_handler)
{
    struct fuse_getattr_in in = { .fh = 0 };
    struct mf_reader_stats st;

    rig.script = slow;
    fs_step_init(&rig, 1);
    for (int i = 0; i < 17; i++)
        step_ask(FUSE_GETATTR, &in, sizeof(in));
    st = fs_stats(&rig, 0);
    for (int i = 0; i < 21; i++) /* 2^21 ns are 2.1 ms */
        cr_expect_eq(st.latency[i], 0, "bucket %d", i);
    cr_expect_eq(timed(0), 1);
}

FS_TEST(session_stats, waking_up_is_counted)
{
    fs_run(&rig);
    for (int i = 0; i < 10; i++)
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_geq(fs_stats(&rig, 0).wakeups, 10);
}

FS_TEST(session_stats, of_readers_that_are_not_there)
{
    struct mf_reader_stats st = { .size = sizeof(st) };

    fs_step_init(&rig, 2);
    cr_expect_eq(mf_session_stats(rig.s, 2, &st), -ENOENT);
    cr_expect_eq(mf_session_stats(rig.s, UINT32_MAX, &st), -ENOENT);
    st.size = 8;
    cr_expect_eq(mf_session_stats(rig.s, 0, &st), -EINVAL);
    st.requests = 0xeeee;
    st.size = offsetof(struct mf_reader_stats, requests);
    cr_expect_eq(mf_session_stats(rig.s, 1, &st), 0);
    cr_expect_eq(st.reader, 1);
    cr_expect_eq(st.requests, 0xeeee, "written beyond what the caller has");
}

FS_TEST(session_stats, as_lines_of_json)
{
    struct fuse_getattr_in in = { .fh = 0 };
    int fd = memfd_create("stats", MFD_CLOEXEC);
    char text[4096] = "";

    fs_step_init(&rig, 2);
    for (int i = 0; i < 7; i++)
        step_ask(FUSE_GETATTR, &in, sizeof(in));
    cr_expect_eq(mf_session_write_stats(rig.s, fd), 0);
    cr_assert_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
    cr_expect_eq(strncmp(text, "{\"reader\":0,", 12), 0, "%s", text);
    cr_expect(strstr(text, "\"requests\":7,"), "%s", text);
    cr_expect(strstr(text, "}\n{\"reader\":1,"), "%s", text);
    cr_expect_str_eq(text + strlen(text) - 2, "}\n");
    close(fd);
    cr_expect_lt(mf_session_write_stats(rig.s, -1), 0);
}

/* ---- messages that do not decode ---------------------------------------------------------------------------- */

FS_TEST(session_stats, the_reader_survives_malformed_messages)
{
    static struct wire w;
    uint64_t malformed = 0;

    rig.implemented = UINT64_MAX;
    fs_step_init(&rig, 1);
    for (uint32_t opcode = 1; opcode < MF__OPCODES; opcode++) {
        const struct mf__opcode *row = mf__opcode(opcode);

        if (!row->slot)
            continue;
        wire_sample(&w, opcode);
        /* Half of each message. */
        if (w.len == 40 || (row->args_least == 0 && row->names == 0 && w.len / 2 < 40))
            continue;
        fs_send(&rig, opcode, 1, w.bytes + 40, 1);
        fs_step(&rig, 0);
        malformed++;
        cr_expect_eq(fs_stats(&rig, 0).malformed, malformed, "%s", row->name);
        cr_expect_eq(fs_stats(&rig, 0).in_flight, 0, "%s", row->name);
        /* Only what waits for an answer holds anything. */
        cr_expect_eq(mf_vkernel_pending(rig.vk), 0);
    }
    cr_expect_gt(malformed, 30);
    cr_expect_eq(rig.calls, 0);
    cr_expect_eq(step_ask(FUSE_READLINK, NULL, 0), -ENOSYS);
}

FS_TEST(session_stats, malformed_messages_are_answered_with_eio)
{
    fs_step_init(&rig, 1);
    cr_expect_eq(step_ask(FUSE_LOOKUP, "no NUL", 6), -EIO);
    cr_expect_eq(step_ask(FUSE_LOOKUP, "", 1), -EIO);
    cr_expect_eq(step_ask(FUSE_LOOKUP, "a/b", 4), -EIO);
    cr_expect_eq(step_ask(FUSE_LOOKUP, "a\0b", 4), -EIO);
    cr_expect_eq(step_ask(FUSE_LOOKUP, NULL, 0), -EIO);
    cr_expect_eq(step_ask(FUSE_READ, "", 1), -EIO);
    cr_expect_eq(rig.calls, 0);
}

FS_TEST(session_stats, the_log_is_not_flooded)
{
    fs_step_init(&rig, 1);
    for (int i = 0; i < 1000; i++)
        step_ask(FUSE_LOOKUP, NULL, 0);
    cr_expect_eq(fs_stats(&rig, 0).malformed, 1000);
    cr_expect_geq(fs_logged(&rig, "malformed"), 1);
    cr_expect_leq(fs_logged(&rig, "malformed"), 100, "%u lines", fs_logged(&rig, "malformed"));
    cr_expect(fs_logged(&rig, "opcode 1, length 40"), "%s", rig.log);
}

static int32_t forget_to_answer(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    (void)r;
    return MF_ANSWERED;
}

FS_TEST(session_stats, neither_by_handlers)
{
    struct fuse_getattr_in in = { .fh = 0 };

    rig.script = forget_to_answer;
    fs_step_init(&rig, 1);
    for (int i = 0; i < 1000; i++)
        step_ask(FUSE_GETATTR, &in, sizeof(in));
    cr_expect_eq(fs_stats(&rig, 0).forgotten, 1000);
    cr_expect_leq(fs_logged(&rig, "without an answer"), 100);
}

/* ---- log lines ------------------------------------------------------------------------------------------------ */

FS_TEST(session_stats, the_debug_log_names_reader_and_request)
{
    rig.opts.flags = MF_OPT_DEBUG;
    fs_step_init(&rig, 2);
    fs_send(&rig, FUSE_LOOKUP, 1, "f07", 4);
    fs_step(&rig, 1);
    cr_expect_eq(fs_logged(&rig, "reader 1 fd -1: LOOKUP"), 1, "%s", rig.log);
    cr_expect_eq(fs_logged(&rig, "f07"), 1);
    mf_client_forget(rig.vk, 5, 1);
    fs_step(&rig, 0);
    cr_expect_eq(fs_logged(&rig, "reader 0 fd -1: FORGET"), 1, "%s", rig.log);
}

FS_TEST(session_stats, without_it_requests_are_not_logged)
{
    struct fuse_getattr_in in = { .fh = 0 };

    fs_step_init(&rig, 1);
    step_ask(FUSE_GETATTR, &in, sizeof(in));
    cr_expect_eq(fs_logged(&rig, "GETATTR"), 0, "%s", rig.log);
}

/* ---- notifications ---------------------------------------------------------------------------------------------- */

FS_TEST(session_stats, notifications)
{
    struct {
        struct fuse_out_header hdr;
        union {
            struct fuse_notify_inval_inode_out inode;
            struct fuse_notify_inval_entry_out entry;
            uint8_t bytes[5000];
        } body;
    } m;
    char name[4097];

    fs_step_init(&rig, 2);
    cr_expect_eq(mf_notify_inval_inode(rig.s, 7, 4096, 100), 0);
    cr_expect_eq(mf__vkernel_notified(rig.vk, FUSE_NOTIFY_INVAL_INODE), 1);
    cr_expect_eq(mf__vkernel_last_notify(rig.vk, &m, sizeof(m)), 16 + sizeof(m.body.inode));
    cr_expect_eq(m.body.inode.ino, 7);
    cr_expect_eq(m.body.inode.off, 4096);
    cr_expect_eq(m.body.inode.len, 100);
    cr_expect_eq(mf_notify_inval_inode(rig.s, 7, -1, 0), 0, "attributes only");
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, "name", 4), 0);
    cr_expect_eq(mf__vkernel_notified(rig.vk, FUSE_NOTIFY_INVAL_ENTRY), 1);
    cr_expect_eq(mf__vkernel_last_notify(rig.vk, &m, sizeof(m)), 16 + sizeof(m.body.entry) + 5);
    cr_expect_eq(m.body.entry.parent, 1);
    cr_expect_eq(m.body.entry.namelen, 4);

    memset(name, 'n', sizeof(name));
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, name, 4095), 0);
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, name, 4096), -EINVAL);
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, name, UINT64_MAX), -EINVAL);
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, "", 0), -EINVAL);
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, "a/b", 3), -EINVAL);
    cr_expect_eq(mf_notify_inval_entry(rig.s, 1, "a\0b", 3), -EINVAL);
    cr_expect_eq(mf__vkernel_notified(rig.vk, FUSE_NOTIFY_INVAL_ENTRY), 2);
}

FS_TEST(session_stats, notifications_need_a_connection)
{
    struct mf_ops ops = { .size = sizeof(ops) };
    struct mf_session *s;

    cr_assert_eq(mf_session_new(&ops, NULL, NULL, &s, NULL), 0);
    cr_expect_eq(mf_notify_inval_inode(s, 1, 0, 0), -ENOTCONN);
    cr_expect_eq(mf_notify_inval_entry(s, 1, "x", 1), -ENOTCONN);
    mf_session_free(s);
    fs_run(&rig);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(mf_notify_inval_inode(rig.s, 1, 0, 0), -ENOTCONN);
}

static void *notify_main(void *arg)
{
    for (int i = 0; i < 2000; i++) {
        int rc = mf_notify_inval_inode(arg, (uint64_t)i + 1, 0, 0);

        cr_expect(rc == 0 || rc == -ENOTCONN, "%d", rc);
    }
    return NULL;
}

FS_TEST(session_stats, notifications_from_threads_until_the_end)
{
    pthread_t threads[2];

    rig.opts.readers = 2;
    fs_run(&rig);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, notify_main, rig.s), 0);
    for (int i = 0; i < 50; i++)
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}
