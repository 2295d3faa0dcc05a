/* SPDX-License-Identifier: MIT */
/* The ends of a session: asked for, by the mount's end, by force; and what must have happened by then. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "fs_rig.h"

static struct fs_rig rig;

static void setup(void)
{
    fs_init(&rig);
}

TestSuite(session_stop, .init = setup, .timeout = 30);

static void served(void)
{
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_FILE0)), 0);
}

/* ---- asked for ------------------------------------------------------------------------------------------ */

FS_TEST(session_stop, from_another_thread)
{
    rig.opts.readers = 3;
    fs_run(&rig);
    served();
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(rig.destroyed, 1);
    cr_expect_eq(rig.started, 3);
    cr_expect_eq(rig.ended, 3);
    cr_expect_eq(mf_session_run(rig.s), -ENOTCONN, "it is over");
    cr_expect_eq(mf_session_start(rig.s), -ENOTCONN);
    cr_expect_eq(mf_session_finish(rig.s), -ENOTCONN);
    cr_expect_eq(rig.destroyed, 1);
    mf_session_stop(rig.s);
    mf_session_stop(rig.s);
}

static int32_t stop_from_here(struct mf_call *c, struct fs_rig *r)
{
    mf_session_stop(c->session);
    mf_session_stop(r->s);
    return FS_DEFAULT;
}

FS_TEST(session_stop, from_a_handler)
{
    rig.opts.readers = 2;
    rig.script = stop_from_here;
    fs_run(&rig);
    served();
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(session_stop, before_it_runs)
{
    fs_connect(&rig);
    mf_session_stop(rig.s);
    fs_run(&rig);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(rig.destroyed, 1);
}

FS_TEST(session_stop, at_once_and_a_thousand_times)
{
    rig.opts.readers = 2;
    fs_run(&rig);
    for (int i = 0; i < 1000; i++)
        mf_session_stop(rig.s);
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(session_stop, waits_for_handlers)
{
    uint64_t ids[2];

    rig.opts.readers = 2;
    fs_run(&rig);
    for (int i = 0; i < 2; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, 4096);
    cr_assert(fs_gate_await(&rig.gate, 2));
    mf_session_stop(rig.s);
    usleep(50000);
    cr_expect_eq(rig.destroyed, 0, "the end came with handlers inside");
    cr_expect_eq(rig.ended, 0);
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0, "a handler's answer was lost");
    cr_expect_eq(fs_join(&rig), 0);
}

/* ---- the mount's end -------------------------------------------------------------------------------------- */

FS_TEST(session_stop, by_unmounting)
{
    rig.opts.readers = 3;
    fs_run(&rig);
    served();
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(session_stop, unmounted_with_a_handler_inside)
{
    uint64_t id;

    fs_run(&rig);
    id = fs_send_read(&rig, FS_GATE, 4096);
    cr_assert(fs_gate_await(&rig.gate, 1));
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_wait(&rig, id), -ECONNABORTED);
    usleep(20000);
    cr_expect_eq(rig.destroyed, 0);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(session_stop, by_an_abort)
{
    rig.opts.readers = 3;
    fs_run(&rig);
    served();
    mf_vkernel_abort(rig.vk);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
}

static int32_t destroy_hook_only(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    return r->destroyed ? -EIO : FS_DEFAULT;
}

FS_TEST(session_stop, destroy_message_alone_ends_nothing)
{
    rig.script = destroy_hook_only;
    fs_run(&rig);
    cr_expect_eq(fs_ask(&rig, FUSE_DESTROY, 0, NULL, 0), 0);
    served();
}

/* ---- destroy ------------------------------------------------------------------------------------------------ */

FS_TEST(session_stop, destroy_is_called_on_the_thread_that_ran_it)
{
    pthread_t run_thread;

    rig.opts.readers = 2;
    fs_run(&rig);
    run_thread = rig.runner;
    served();
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect(pthread_equal(rig.destroyer, run_thread));
    cr_expect_eq(rig.inside_at_destroy, 0);
}

FS_TEST(session_stop, destroy_without_a_run)
{
    fs_prepare(&rig);
    mf_session_free(rig.s); /* not even connected */
    mf_vkernel_free(rig.vk);
    cr_expect_eq(rig.destroyed, 1);
    cr_expect(pthread_equal(rig.destroyer, pthread_self()));
    fs_init(&rig);
    fs_connect(&rig);
}

/* ---- two at once ------------------------------------------------------------------------------------------------ */

FS_TEST(session_stop, it_runs_once_at_a_time)
{
    fs_run(&rig);
    served();
    cr_expect_eq(mf_session_run(rig.s), -EBUSY);
    cr_expect_eq(mf_session_start(rig.s), -EBUSY);
    served();
}

/* ---- in parts ---------------------------------------------------------------------------------------------------- */

FS_TEST(session_stop, start_wait_finish)
{
    fs_connect(&rig);
    cr_assert_eq(mf_session_start(rig.s), 0);
    cr_expect_eq(mf_session_wait(rig.s, 0), -ETIMEDOUT);
    cr_expect_eq(mf_session_wait(rig.s, 20), -ETIMEDOUT);
    served();
    mf_session_stop(rig.s);
    cr_expect_eq(mf_session_wait(rig.s, -1), 0);
    cr_expect_eq(mf_session_wait(rig.s, 0), 0, "it stays ended");
    cr_expect_eq(rig.destroyed, 0);
    cr_expect_eq(mf_session_finish(rig.s), 0);
    cr_expect_eq(rig.destroyed, 1);
    cr_expect_eq(mf_session_finish(rig.s), -ENOTCONN);
}

FS_TEST(session_stop, finish_without_a_stop)
{
    fs_connect(&rig);
    cr_assert_eq(mf_session_start(rig.s), 0);
    served();
    cr_expect_eq(mf_session_finish(rig.s), 0);
}

FS_TEST(session_stop, wait_sees_the_mounts_end)
{
    fs_connect(&rig);
    cr_assert_eq(mf_session_start(rig.s), 0);
    mf_vkernel_abort(rig.vk);
    cr_expect_eq(mf_session_wait(rig.s, 10000), 0);
    cr_expect_eq(mf_session_finish(rig.s), -ECONNABORTED);
}

static void on_alarm(int sig)
{
    (void)sig;
}

FS_TEST(session_stop, wait_is_interrupted_by_signals)
{
    struct sigaction act = { .sa_handler = on_alarm };
    struct timespec ts = { .tv_nsec = 50000000 };
    timer_t timer;
    struct itimerspec spec = { .it_value = ts, .it_interval = ts };

    sigaction(SIGALRM, &act, NULL);
    fs_connect(&rig);
    cr_assert_eq(mf_session_start(rig.s), 0);
    cr_assert_eq(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
    timer_settime(timer, 0, &spec, NULL);
    cr_expect_eq(mf_session_wait(rig.s, 10000), -EINTR);
    timer_delete(timer);
    cr_expect_eq(mf_session_finish(rig.s), 0);
}

FS_TEST(session_stop, freed_while_it_runs)
{
    fs_connect(&rig);
    cr_assert_eq(mf_session_start(rig.s), 0);
    served();
    /* fs_end() frees it as it is. */
}

/* ---- on the calling thread --------------------------------------------------------------------------------------- */

static int32_t on_the_runner(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    cr_expect(pthread_equal(pthread_self(), r->runner));
    return FS_DEFAULT;
}

FS_TEST(session_stop, inline_serves_on_the_calling_thread)
{
    rig.opts.flags = MF_OPT_INLINE;
    rig.script = on_the_runner;
    fs_run(&rig);
    served();
    served();
    cr_expect_eq(mf_session_run(rig.s), -EBUSY);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(rig.started, 1);
    cr_expect_eq(rig.ended, 1);
    cr_expect(pthread_equal(rig.destroyer, rig.runner));
}

FS_TEST(session_stop, inline_from_a_handler)
{
    rig.opts.flags = MF_OPT_INLINE;
    rig.script = stop_from_here;
    fs_run(&rig);
    served();
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(session_stop, inline_by_an_abort)
{
    rig.opts.flags = MF_OPT_INLINE;
    fs_run(&rig);
    served();
    mf_vkernel_abort(rig.vk);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
}

/* ---- handlers that do not end --------------------------------------------------------------------------------------- */

FS_TEST(session_stop, a_handler_that_ends_after_the_deadline)
{
    uint64_t id;

    rig.opts.stop_timeout_ms = 100;
    rig.opts.readers = 2;
    fs_run(&rig);
    id = fs_send_read(&rig, FS_GATE, 4096);
    cr_assert(fs_gate_await(&rig.gate, 1));
    mf_session_stop(rig.s);
    FS_UNTIL(fs_logged(&rig, "still in handlers after 100 ms") == 1);
    fs_gate_open(&rig.gate); /* within the time that an abort gives it */
    cr_expect_eq(fs_join(&rig), -ETIMEDOUT);
    cr_expect_eq(fs_logged(&rig, "left behind"), 0, "%s", rig.log);
    cr_expect_eq(fs_wait(&rig, id), 0);
    cr_expect_eq(rig.destroyed, 1);
}

/* It uses what it was given until the process ends: nothing of that may go. */
Test(session_stop, a_handler_that_never_ends, .timeout = 30)
{
    static struct fs_rig *stuck;
    uint64_t id;

    stuck = calloc(1, sizeof(*stuck));
    fs_init(stuck);
    stuck->opts.stop_timeout_ms = 50;
    stuck->opts.readers = 2;
    fs_run(stuck);
    id = fs_send_read(stuck, FS_GATE, 4096);
    cr_assert(fs_gate_await(&stuck->gate, 1));
    cr_expect_eq(fs_wait(stuck, fs_send_getattr(stuck, FS_FILE0)), 0);
    cr_expect_eq(fs_stop(stuck), -ETIMEDOUT);
    cr_expect_eq(fs_logged(stuck, "left behind"), 1, "%s", stuck->log);
    cr_expect_eq(stuck->destroyed, 0, "destroyed under a handler's feet");
    cr_expect_eq(stuck->ended, 1);
    mf_vkernel_set_timeout(stuck->vk, 100);
    mf_vkernel_unmount(stuck->vk);
    cr_expect_eq(fs_wait(stuck, id), -ECONNABORTED);
    mf_session_free(stuck->s);
    cr_expect_eq(stuck->destroyed, 0);
}

/* ---- signals ---------------------------------------------------------------------------------------------------------- */

static _Atomic int own_handler;

static void own(int sig)
{
    own_handler = sig;
}

static void ended_by(int sig)
{
    struct sigaction act = { .sa_handler = own }, now;

    fs_init(&rig);
    sigaction(sig, &act, NULL);
    rig.opts.flags = MF_OPT_SIGNALS;
    fs_run(&rig);
    served();
    own_handler = 0;
    kill(getpid(), sig);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(own_handler, 0, "the program's own handler ran");
    sigaction(sig, NULL, &now);
    cr_expect_eq(now.sa_handler, own, "the program's own handler was not put back");
    fs_end(&rig);
}

Test(session_stop, ends_it, .timeout = 30)
{
    ended_by(SIGTERM);
    ended_by(SIGINT);
    ended_by(SIGHUP);
    ended_by(SIGTERM);
}

FS_TEST(session_stop, without_the_option_signals_are_the_programs)
{
    struct sigaction act = { .sa_handler = own };

    sigaction(SIGTERM, &act, NULL);
    fs_run(&rig);
    served();
    kill(getpid(), SIGTERM);
    FS_UNTIL(own_handler == SIGTERM);
    served();
}

FS_TEST(session_stop, what_was_ignored_stays_ignored)
{
    rig.opts.flags = MF_OPT_SIGNALS;
    signal(SIGHUP, SIG_IGN);
    fs_run(&rig);
    served();
    kill(getpid(), SIGHUP);
    usleep(20000);
    served();
    kill(getpid(), SIGTERM);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(signal(SIGHUP, SIG_DFL), SIG_IGN);
}

Test(session_stop, ends_all_sessions, .timeout = 30)
{
    struct fs_rig *other = calloc(1, sizeof(*other));

    fs_init(&rig);
    fs_init(other);
    rig.opts.flags = other->opts.flags = MF_OPT_SIGNALS;
    fs_run(&rig);
    fs_run(other);
    served();
    cr_expect_eq(fs_wait(other, fs_send_getattr(other, FS_FILE0)), 0);
    kill(getpid(), SIGINT);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(fs_join(other), 0);
    fs_end(&rig);
    fs_end(other);
    free(other);
}

Test(session_stop, inline_session, .timeout = 30)
{
    fs_init(&rig);
    rig.opts.flags = MF_OPT_SIGNALS | MF_OPT_INLINE;
    fs_run(&rig);
    served();
    kill(getpid(), SIGTERM);
    cr_expect_eq(fs_join(&rig), 0);
    fs_end(&rig);
}

/* ---- again and again ------------------------------------------------------------------------------------------------------ */

static void *load(void *arg)
{
    struct fs_rig *r = arg;

    for (;;) {
        struct mf_attr a;
        int rc = mf_client_getattr(r->vk, FS_FILE0, &a);

        if (rc < 0)
            return (void *)(intptr_t)rc;
    }
}

/* Each end at each moment under load: everybody who asked gets an answer, and nothing is left. */
Test(session_stop, ends_under_load, .timeout = 60)
{
    for (int round = 0; round < 24; round++) {
        pthread_t clients[3];
        int rc;

        fs_init(&rig);
        rig.opts.readers = 1 + (uint32_t)round % 4;
        rig.opts.clone_fd = round % 3 ? MF_CLONE_AUTO : MF_CLONE_OFF;
        fs_run(&rig);
        for (int i = 0; i < 3; i++)
            cr_assert_eq(pthread_create(&clients[i], NULL, load, &rig), 0);
        usleep((useconds_t)round * 500);
        switch (round % 3) {
        case 0: rc = fs_stop(&rig); break;
        case 1:
            mf_vkernel_unmount(rig.vk);
            rc = fs_join(&rig);
            break;
        default:
            mf_vkernel_abort(rig.vk);
            rc = fs_join(&rig);
            break;
        }
        cr_expect_eq(rc, round % 3 == 2 ? -ECONNABORTED : 0, "round %d: %d", round, rc);
        for (int i = 0; i < 3; i++) {
            void *end;

            pthread_join(clients[i], &end);
            rc = (int)(intptr_t)end;
            cr_expect(rc == -ENOTCONN || rc == -ECONNABORTED, "round %d: a client got %d", round, rc);
        }
        fs_end(&rig);
    }
}
