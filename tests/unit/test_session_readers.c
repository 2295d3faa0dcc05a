/* SPDX-License-Identifier: MIT */
/* Several readers of one mount: their channels, their threads, and what happens when one of them dies. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "fs_rig.h"

static struct fs_rig rig;

static void setup(void)
{
    fs_init(&rig);
}

TestSuite(session_readers, .init = setup, .timeout = 30);

/* Each of `n` channels delivered something, and no others. */
static void expect_channels(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        cr_expect_gt(mf_vkernel_reads(rig.vk, i), 0, "channel %u was never read", i);
    for (uint32_t i = n; i < 8; i++)
        cr_expect_eq(mf_vkernel_reads(rig.vk, i), 0, "channel %u was read", i);
}

/* ---- how many are in flight ------------------------------------------------------------------------------ */

FS_TEST(session_readers, two_blocked_handlers_are_in_flight_at_once)
{
    uint64_t ids[2];

    rig.opts.readers = 2;
    fs_run(&rig);
    fs_occupy(&rig, 2, ids);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 1);
    cr_expect_eq(fs_stats(&rig, 1).in_flight, 1);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 2);
    fs_let_go(&rig, 2, ids);
    cr_expect_eq(fs_info(&rig).channels, 2);
    expect_channels(2);
}

static int32_t only_one(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    cr_expect_eq(atomic_load(&r->inside), 1, "two handlers in a session with one reader");
    usleep(100);
    return FS_DEFAULT;
}

FS_TEST(session_readers, one_reader_runs_one_handler)
{
    uint64_t ids[20];

    rig.script = only_one;
    fs_run(&rig);
    for (int i = 0; i < 20; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    cr_expect_eq(fs_info(&rig).readers, 1);
    cr_expect_eq(fs_info(&rig).channels, 1);
    cr_expect_str_empty(fs_info(&rig).clone_reason);
}

static int32_t note_channel(struct mf_call *c, struct fs_rig *r)
{
    struct mf__slot *slot = mf__token_slot(c->req);

    /* Which of the session's channels a request came by is its reader's own. */
    cr_expect_eq(slot->io.ch, r->s->readers[c->reader]->ch);
    cr_expect_eq(slot->io.ch, r->s->channels[c->reader]);
    cr_expect_eq(mf__self, r->s->readers[c->reader]);
    return FS_DEFAULT;
}

FS_TEST(session_readers, each_has_a_channel_of_its_own)
{
    uint64_t ids[5];

    rig.opts.readers = 5;
    rig.opts.clone_fd = MF_CLONE_REQUIRE;
    rig.script = note_channel;
    fs_run(&rig);
    fs_occupy(&rig, 5, ids);
    fs_let_go(&rig, 5, ids);
    expect_channels(5);
    cr_expect_eq(fs_info(&rig).readers, 5);
    cr_expect_eq(fs_info(&rig).channels, 5);
    cr_expect_eq(fs_info(&rig).clone_error, 0);
    for (uint32_t i = 0; i < 5; i++)
        for (uint32_t j = 0; j < i; j++)
            cr_expect_neq(rig.s->readers[i]->ch, rig.s->readers[j]->ch);
}

FS_TEST(session_readers, clones_are_made_before_init_is_answered)
{
    rig.opts.readers = 4;
    fs_connect(&rig);
    cr_expect_eq(rig.s->channel_count, 4);
    cr_expect_eq(fs_info(&rig).readers, 4, "what it will be");
    cr_expect_eq(fs_info(&rig).channels, 4);
}

FS_TEST(session_readers, automatic_number)
{
    uint64_t ids[2];

    rig.opts.readers = 0;
    fs_run(&rig);
    fs_occupy(&rig, 2, ids); /* one handler that waits does not stop the mount */
    fs_let_go(&rig, 2, ids);
    cr_expect_geq(fs_info(&rig).readers, 2);
}

/* ---- sharing ------------------------------------------------------------------------------------------------ */

FS_TEST(session_readers, cloning_may_be_off)
{
    uint64_t ids[3];
    uint64_t requests = 0;

    rig.opts.readers = 3;
    rig.opts.clone_fd = MF_CLONE_OFF;
    fs_run(&rig);
    fs_occupy(&rig, 3, ids);
    fs_let_go(&rig, 3, ids);
    expect_channels(1);
    cr_expect_eq(fs_info(&rig).readers, 3);
    cr_expect_eq(fs_info(&rig).channels, 1);
    cr_expect_eq(fs_info(&rig).clone_error, 0);
    cr_expect(strstr(fs_info(&rig).clone_reason, "off"), "%s", fs_info(&rig).clone_reason);
    for (uint32_t i = 0; i < 3; i++)
        requests += fs_stats(&rig, i).requests;
    cr_expect_eq(requests, 3);
}

static void clone_fails_at(uint32_t n, uint32_t error)
{
    uint64_t ids[4];
    struct mf_info info;
    char text[32];

    fs_init(&rig);
    rig.opts.readers = 4;
    rig.kernel.clone_fail_at = n;
    rig.kernel.clone_errno = error;
    fs_run(&rig);
    fs_occupy(&rig, 4, ids);
    fs_let_go(&rig, 4, ids);
    info = fs_info(&rig);
    cr_expect_eq(info.readers, 4);
    cr_expect_eq(info.channels, n, "clone %u fails: %u channels", n, info.channels);
    cr_expect_eq(info.clone_error, error);
    snprintf(text, sizeof(text), "reader %u", n);
    cr_expect(strstr(info.clone_reason, text), "%s", info.clone_reason);
    cr_expect(strstr(info.clone_reason, mf__strerror((int)error)), "%s", info.clone_reason);
    cr_expect_eq(fs_logged(&rig, text), 1, "%s", rig.log);
    expect_channels(n);
    fs_end(&rig);
}

Test(session_readers, a_clone_that_fails_leaves_the_others_serving, .timeout = 30)
{
    clone_fails_at(1, EINVAL);
    clone_fails_at(2, EMFILE);
    clone_fails_at(3, ENOMEM);
}

Test(session_readers, a_clone_that_is_required_fails_the_mount, .timeout = 30)
{
    for (uint32_t n = 1; n < 4; n++) {
        struct mf_error err = { .size = sizeof(err) };
        char text[32];

        fs_init(&rig);
        rig.opts.readers = 4;
        rig.opts.clone_fd = MF_CLONE_REQUIRE;
        rig.kernel.clone_fail_at = n;
        rig.kernel.clone_errno = EMFILE;
        fs_prepare(&rig);
        cr_expect_eq(mf_session_attach_vkernel(rig.s, rig.vk, &err), -EMFILE);
        snprintf(text, sizeof(text), "reader %u", n);
        cr_expect(strstr(err.text, text), "%s", err.text);
        cr_expect_eq(mf_session_run(rig.s), -ENOTCONN);
        fs_end(&rig);
    }
}

/* ---- one more ------------------------------------------------------------------------------------------------- */

FS_TEST(session_readers, one_more_while_it_runs)
{
    uint64_t ids[4];

    rig.opts.readers = 1;
    fs_run(&rig);
    fs_occupy(&rig, 1, ids);
    for (int i = 1; i < 4; i++) {
        cr_expect_eq(mf_session_add_reader(rig.s), i);
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
        cr_assert(fs_gate_await(&rig.gate, (unsigned)i + 1), "reader %d does not serve", i);
    }
    cr_expect_eq(fs_info(&rig).readers, 4);
    cr_expect_eq(fs_info(&rig).channels, 4);
    fs_let_go(&rig, 4, ids);
    expect_channels(4);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(rig.started, 4);
    cr_expect_eq(rig.ended, 4);
    cr_expect_eq(mf_session_add_reader(rig.s), -ENOTCONN);
}

FS_TEST(session_readers, one_more_before_it_runs)
{
    uint64_t ids[3];

    rig.opts.readers = 2;
    fs_connect(&rig);
    cr_expect_eq(mf_session_add_reader(rig.s), 2);
    cr_expect_eq(fs_info(&rig).readers, 3);
    fs_run(&rig);
    fs_occupy(&rig, 3, ids);
    fs_let_go(&rig, 3, ids);
    expect_channels(3);
}

FS_TEST(session_readers, one_more_without_a_clone)
{
    uint64_t ids[2];

    rig.kernel.clone_fail_at = 1;
    rig.kernel.clone_errno = EMFILE;
    fs_run(&rig);
    FS_UNTIL(rig.started == 1);
    cr_expect_eq(fs_info(&rig).clone_error, 0);
    cr_expect_eq(mf_session_add_reader(rig.s), 1);
    fs_occupy(&rig, 2, ids);
    fs_let_go(&rig, 2, ids);
    cr_expect_eq(fs_info(&rig).channels, 1);
    cr_expect_eq(fs_info(&rig).clone_error, EMFILE, "why they share is not told");
    cr_expect(strstr(fs_info(&rig).clone_reason, "reader 1"), "%s", fs_info(&rig).clone_reason);
}

FS_TEST(session_readers, one_more_that_must_have_a_clone)
{
    rig.opts.clone_fd = MF_CLONE_REQUIRE;
    rig.kernel.clone_fail_at = 1;
    rig.kernel.clone_errno = EMFILE;
    fs_run(&rig);
    FS_UNTIL(rig.started == 1);
    cr_expect_eq(mf_session_add_reader(rig.s), -EMFILE);
    cr_expect_eq(fs_info(&rig).readers, 1);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

FS_TEST(session_readers, as_many_as_there_may_be)
{
    rig.opts.max_outstanding = 4;
    rig.opts.max_write = 4096;
    fs_run(&rig);
    FS_UNTIL(rig.started == 1);
    for (int i = 1; i < (int)MF__MAX_READERS; i++)
        cr_assert_eq(mf_session_add_reader(rig.s), i);
    cr_expect_eq(mf_session_add_reader(rig.s), -EMFILE);
    cr_expect_eq(fs_info(&rig).readers, MF__MAX_READERS);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

/* A reader that is added while the session begins has one thread, whoever starts it. */
Test(session_readers, one_more_at_the_start, .timeout = 60)
{
    for (int i = 0; i < 200; i++) {
        fs_init(&rig);
        fs_connect(&rig);
        fs_run(&rig);
        for (volatile int spin = 0; spin < i * 100; spin = spin + 1)
            continue;
        cr_expect_eq(mf_session_add_reader(rig.s), 1);
        FS_UNTIL(rig.started >= 2);
        cr_expect_eq(fs_stop(&rig), 0);
        cr_expect_eq(rig.started, 2);
        cr_expect_eq(rig.ended, 2);
        fs_end(&rig);
    }
}

/* A reader that is added while the session ends starts and ends, or is refused: it is never lost. */
Test(session_readers, one_more_at_the_end, .timeout = 60)
{
    for (int i = 0; i < 100; i++) {
        int rc;

        fs_init(&rig);
        fs_run(&rig);
        FS_UNTIL(rig.started == 1);
        mf_session_stop(rig.s);
        for (volatile int spin = 0; spin < i * 200; spin = spin + 1)
            continue;
        rc = mf_session_add_reader(rig.s);
        cr_expect(rc == 1 || rc == -ENOTCONN, "%d", rc);
        fs_end(&rig);
    }
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static struct {
    pthread_t starter[8], ender[8], caller[8];
    uint32_t tid[8];
    char name[8][16];
    _Atomic unsigned starts[8], ends[8];
} seen;

static void seen_start(struct mf_session *s, uint32_t reader, void *user)
{
    (void)s;
    (void)user;
    seen.starter[reader] = pthread_self();
    seen.tid[reader] = (uint32_t)syscall(SYS_gettid);
    prctl(PR_GET_NAME, seen.name[reader]);
    atomic_fetch_add(&seen.starts[reader], 1);
}

static void seen_end(struct mf_session *s, uint32_t reader, void *user)
{
    (void)s;
    (void)user;
    seen.ender[reader] = pthread_self();
    atomic_fetch_add(&seen.ends[reader], 1);
}

static int32_t seen_call(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    cr_expect_eq(seen.starts[c->reader], 1, "a handler before the reader's start");
    cr_expect_eq(seen.ends[c->reader], 0, "a handler after the reader's end");
    seen.caller[c->reader] = pthread_self();
    return FS_DEFAULT;
}

FS_TEST(session_readers, start_and_end_are_told_on_their_threads)
{
    uint64_t ids[3];
    char name[16];

    rig.opts.readers = 3;
    rig.script = seen_call;
    fs_connect(&rig);
    rig.s->hooks.reader_start = seen_start;
    rig.s->hooks.reader_end = seen_end;
    fs_run(&rig);
    fs_occupy(&rig, 3, ids);
    for (uint32_t i = 0; i < 3; i++) {
        cr_expect_eq(fs_stats(&rig, i).tid, seen.tid[i]);
        cr_expect_eq(fs_stats(&rig, i).fd, -1);
        cr_expect_eq(fs_stats(&rig, i).reader, i);
        cr_expect_eq(seen.ends[i], 0);
    }
    fs_let_go(&rig, 3, ids);
    cr_expect_eq(fs_stop(&rig), 0);
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "mf-reader-%u", i);
        cr_expect_str_eq(seen.name[i], name);
        cr_expect_eq(seen.starts[i], 1);
        cr_expect_eq(seen.ends[i], 1);
        cr_expect(pthread_equal(seen.starter[i], seen.ender[i]));
        cr_expect(pthread_equal(seen.starter[i], seen.caller[i]));
        cr_expect_eq(fs_stats(&rig, i).tid, 0, "it runs no more");
    }
}

/* What handlers keep, for the next request of a ring, is no use on the device. */
FS_TEST(session_readers, leave_each_handler_where_a_request_takes_a_system_call)
{
    static const uint32_t readers[] = { 1, 2 }; /* under the lock of one reader, and without */

    for (size_t i = 0; i < MF__ARRAY_SIZE(readers); i++) {
        if (i > 0) {
            fs_end(&rig);
            fs_init(&rig);
        }
        rig.keeps = true;
        rig.opts.readers = readers[i];
        fs_run(&rig);
        for (unsigned n = 1; n <= 10; n++) {
            cr_assert_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
            cr_expect_eq(atomic_load(&rig.left), n, "%u readers", readers[i]);
        }
    }
}

static _Atomic int signal_open;

static int32_t look_at_mask(struct mf_call *c, struct fs_rig *r)
{
    sigset_t mask;

    (void)c;
    (void)r;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    signal_open = !sigismember(&mask, SIGINT) || !sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGCHLD) ||
                  !sigismember(&mask, SIGALRM);
    return FS_DEFAULT;
}

/* The program's signals are for the program's threads. */
FS_TEST(session_readers, take_no_signals)
{
    signal_open = 1;
    rig.script = look_at_mask;
    fs_run(&rig);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_eq(signal_open, 0);
}

/* ---- the death of one -------------------------------------------------------------------------------------------- */

static int32_t wait_to_be_cancelled(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_SINK)
        return FS_DEFAULT;
    atomic_fetch_sub(&r->inside, 1); /* it never returns */
    for (int i = 0; i < 20000; i++)
        usleep(1000);
    cr_expect_fail("nobody cancelled this thread");
    return FS_DEFAULT;
}

/* It takes a thread that was cancelled in a system call to be in it for ever, and what that does for races. */
#ifdef __SANITIZE_THREAD__
#define SKIP_CANCEL() cr_skip_test("ThreadSanitizer cannot follow a cancelled thread")
#else
#define SKIP_CANCEL() ((void)0)
#endif

/* Cancel the reader that handles a request of FS_SINK. */
static void cancel_in_handler(uint64_t *id)
{
    unsigned before = rig.calls;
    uint32_t victim = UINT32_MAX;

    *id = fs_send_getattr(&rig, FS_SINK);
    FS_UNTIL(rig.calls == before + 1);
    for (uint32_t i = 0; i < fs_info(&rig).readers; i++)
        if (fs_stats(&rig, i).in_flight)
            victim = i;
    cr_assert_neq(victim, UINT32_MAX);
    pthread_cancel(rig.s->readers[victim]->thread);
}

FS_TEST(session_readers, a_cancelled_one_is_replaced)
{
    uint64_t id;

    SKIP_CANCEL();
    rig.script = wait_to_be_cancelled;
    fs_run(&rig);
    for (unsigned i = 1; i <= 3; i++) {
        cancel_in_handler(&id);
        cr_expect_eq(fs_wait(&rig, id), -EIO);
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0, "nobody took its place");
        cr_expect_eq(fs_info(&rig).failed_readers, i);
        cr_expect_eq(fs_logged(&rig, "cancelled"), i, "%s", rig.log);
        cr_expect_eq(rig.started, i + 1);
        cr_expect_eq(rig.ended, i);
    }
    cr_expect_eq(fs_info(&rig).readers, 1);
    FS_UNTIL(fs_stats(&rig, 0).in_flight == 0);
}

FS_TEST(session_readers, cancelled_ones_among_others)
{
    uint64_t id, ids[2];

    SKIP_CANCEL();
    rig.opts.readers = 3;
    rig.script = wait_to_be_cancelled;
    fs_run(&rig);
    fs_occupy(&rig, 2, ids);
    for (int i = 0; i < 3; i++) {
        /* Only the third reader is free. */
        id = fs_send_getattr(&rig, FS_SINK);
        FS_UNTIL(rig.calls == 3 + (unsigned)i);
        for (uint32_t n = 0; n < 3; n++)
            if (fs_stats(&rig, n).ops[FUSE_GETATTR].requests == (unsigned)i + 1)
                pthread_cancel(rig.s->readers[n]->thread);
        cr_expect_eq(fs_wait(&rig, id), -EIO);
    }
    fs_let_go(&rig, 2, ids);
}

/* Keeps its request and is cancelled before the handler returns. */
static struct mf_req *kept;

static int32_t keep_and_wait(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_SINK)
        return FS_DEFAULT;
    cr_expect_eq(mf_req_defer(c->req), 0);
    kept = c->req;
    return wait_to_be_cancelled(c, r);
}

FS_TEST(session_readers, cancelled_with_a_request_that_was_kept)
{
    uint64_t id;

    SKIP_CANCEL();
    rig.script = keep_and_wait;
    fs_run(&rig);
    cancel_in_handler(&id);
    cr_expect_eq(fs_wait(&rig, id), -EIO);
    cr_expect_eq(mf_reply_err(kept, 0), -EALREADY);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

static int32_t answer_and_wait(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_SINK)
        return FS_DEFAULT;
    cr_expect_eq(mf_reply_err(c->req, EDOM), 0);
    return wait_to_be_cancelled(c, r);
}

FS_TEST(session_readers, cancelled_after_its_answer)
{
    uint64_t id;

    SKIP_CANCEL();
    rig.script = answer_and_wait;
    fs_run(&rig);
    id = fs_send_getattr(&rig, FS_SINK);
    cr_expect_eq(fs_wait(&rig, id), -EDOM);
    pthread_cancel(rig.s->readers[0]->thread);
    FS_UNTIL(rig.ended == 1);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    FS_UNTIL(fs_stats(&rig, 0).replies == 2);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
}

static int32_t leave_thread(struct mf_call *c, struct fs_rig *r)
{
    if (c->node == FS_SINK) {
        atomic_fetch_sub(&r->inside, 1);
        pthread_exit(NULL);
    }
    return FS_DEFAULT;
}

/* A handler that ends its thread is no better than one that is cancelled. */
FS_TEST(session_readers, a_handler_that_exits_its_thread)
{
    rig.script = leave_thread;
    rig.opts.readers = 2;
    fs_run(&rig);
    for (int i = 0; i < 4; i++)
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_SINK)), -EIO);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_eq(fs_info(&rig).failed_readers, 4);
}

/* Between taking the right to answer and the answer there is a log line, whose sink may do anything. */
static _Atomic unsigned sinking;

static void slow_sink(uint32_t level, const char *text, void *user)
{
    (void)level;
    (void)user;
    if (!strstr(text, "answered with EIO") || atomic_fetch_add(&sinking, 1) > 0)
        return;
    for (int i = 0; i < 20000; i++)
        usleep(1000);
}

static int32_t answer_badly(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_SINK)
        return FS_DEFAULT;
    if (sinking == 0)
        atomic_fetch_sub(&r->inside, 1);
    mf_reply_err(c->req, -1);
    return MF_ANSWERED;
}

FS_TEST(session_readers, cancelled_in_the_middle_of_an_answer)
{
    uint64_t id;

    SKIP_CANCEL();
    rig.opts.log = slow_sink;
    rig.script = answer_badly;
    fs_run(&rig);
    id = fs_send_getattr(&rig, FS_SINK);
    FS_UNTIL(sinking == 1);
    pthread_cancel(rig.s->readers[0]->thread);
    cr_expect_eq(fs_wait(&rig, id), -EIO);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
    cr_expect_leq(rig.s->readers[0]->slots, 4);
}

static int32_t answer_badly_what_was_kept(struct mf_call *c, struct fs_rig *r)
{
    if (c->node == FS_GATE) {
        kept = c->req;
        return MF_ANSWER_LATER;
    }
    if (c->node != FS_SINK)
        return FS_DEFAULT;
    atomic_fetch_sub(&r->inside, 1);
    mf_reply_err(kept, -1);
    return MF_ANSWERED;
}

FS_TEST(session_readers, cancelled_in_the_middle_of_an_answer_to_another_request)
{
    uint64_t first, second;

    SKIP_CANCEL();
    rig.opts.log = slow_sink;
    rig.script = answer_badly_what_was_kept;
    fs_run(&rig);
    first = fs_send_getattr(&rig, FS_GATE);
    second = fs_send_getattr(&rig, FS_SINK);
    FS_UNTIL(sinking == 1);
    pthread_cancel(rig.s->readers[0]->thread);
    cr_expect_eq(fs_wait(&rig, first), -EIO);
    cr_expect_eq(fs_wait(&rig, second), -EIO);
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

FS_TEST(session_readers, cancelled_while_it_waits_for_a_message)
{
    rig.opts.readers = 2;
    fs_run(&rig);
    FS_UNTIL(rig.started == 2);
    usleep(10000);
    pthread_cancel(rig.s->readers[0]->thread);
    pthread_cancel(rig.s->readers[1]->thread);
    for (int i = 0; i < 10; i++)
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

/* ---- channels that break ------------------------------------------------------------------------------------------ */

static int (*real_receive)(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got);
static struct mf__transport breaking;
static struct mf__channel *victims[4];
static _Atomic unsigned broken;
static unsigned victim_count;

static int breaking_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    for (unsigned i = 0; i < victim_count; i++) {
        if (ch == victims[i]) {
            atomic_fetch_add(&broken, 1);
            return -EIO;
        }
    }
    return real_receive(ch, spare, got);
}

static void break_channels(uint32_t first, uint32_t n)
{
    breaking = *rig.s->channels[0]->ops;
    real_receive = breaking.receive;
    breaking.receive = breaking_receive;
    for (uint32_t i = 0; i < n; i++) {
        victims[victim_count++] = rig.s->channels[first + i];
        rig.s->channels[first + i]->ops = &breaking;
    }
}

FS_TEST(session_readers, a_broken_channel_is_replaced)
{
    uint64_t ids[3];

    rig.opts.readers = 3;
    fs_connect(&rig);
    break_channels(1, 1);
    fs_run(&rig);
    fs_occupy(&rig, 3, ids);
    fs_let_go(&rig, 3, ids);
    cr_expect_eq(broken, 1);
    cr_expect_eq(fs_info(&rig).failed_readers, 1);
    cr_expect_eq(fs_logged(&rig, "replaced by a new clone"), 1, "%s", rig.log);
    cr_expect_gt(mf_vkernel_reads(rig.vk, 3), 0);
}

FS_TEST(session_readers, a_broken_channel_that_cannot_be_replaced)
{
    uint64_t ids[2];

    rig.opts.readers = 3;
    rig.kernel.clone_fail_at = 3;
    fs_connect(&rig);
    break_channels(1, 1);
    fs_run(&rig);
    FS_UNTIL(rig.ended == 1);
    fs_occupy(&rig, 2, ids);
    fs_let_go(&rig, 2, ids);
    cr_expect_eq(fs_info(&rig).failed_readers, 1);
    cr_expect_eq(fs_stop(&rig), 0);
}

FS_TEST(session_readers, no_mount_is_left_without_a_reader)
{
    rig.opts.readers = 3;
    rig.kernel.clone_fail_at = 3;
    fs_connect(&rig);
    break_channels(0, 3);
    fs_run(&rig);
    cr_expect_eq(fs_join(&rig), -EIO, "the reason is lost: %d", rig.result);
    cr_expect_eq(rig.destroyed, 1);
}
