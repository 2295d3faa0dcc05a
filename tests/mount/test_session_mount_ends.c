/* SPDX-License-Identifier: MIT */
/* The ends of real mounts, also violent ones, and programs that give up. Nobody hangs, and no mount is left. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "mount_site.h"
#include "transport/ring.h"

#define CLIENTS 4

static struct fs_rig rig;

static void setup(void)
{
    site_begin();
    fs_init(&rig);
    rig.opts.readers = 3;
}

TestSuite(session_ends, .init = setup, .timeout = 60);

static pid_t clients[CLIENTS];

static void start(site_fn client)
{
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = site_start(client, NULL);
}

static void start_load(void)
{
    start(site_load);
}

static void end_load_with(int other)
{
    for (int i = 0; i < CLIENTS; i++) {
        int rc = site_end(clients[i]);

        cr_expect(rc == 0 || rc == other, "client %d: %d", i, rc);
    }
}

static void end_load(void)
{
    end_load_with(0);
}

/* A thread that dies fails what the kernel is about to hand to it over a ring. */
static void end_load_of_killed(void)
{
    end_load_with(ECANCELED);
}

/* Requests are really under way. */
static void under_load(void)
{
    start_load();
    FS_UNTIL(rig.calls > 300);
}

/* ---- ends from outside, the server in this process -------------------------------------------------------------- */

/* umount(2) without force wants nobody to be inside: then it is an ordinary end. */
static int unmount_when_idle(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50000; i++) {
        if (umount(site_point) == 0)
            return 0;
        if (errno != EBUSY)
            return errno;
        usleep(200);
    }
    return EBUSY;
}

Test(session_ends, umount)
{
    site_serve(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(site_run(unmount_when_idle, NULL), 0);
    cr_expect_eq(fs_join(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_ends, umount_under_load)
{
    pid_t client;

    site_serve(&rig);
    client = site_start(site_load, NULL); /* just one: there are moments when it has nothing open */
    FS_UNTIL(rig.calls > 300);
    cr_expect_eq(site_run(unmount_when_idle, NULL), 0);
    cr_expect_eq(fs_join(&rig), 0, "%d", rig.result);
    cr_expect_eq(site_end(client), 0);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

static int unmount_lazily(void *arg)
{
    (void)arg;
    return umount2(site_point, MNT_DETACH) < 0 ? errno : 0;
}

Test(session_ends, lazy_umount_under_load)
{
    site_serve(&rig);
    under_load();
    cr_expect_eq(site_run(unmount_lazily, NULL), 0);
    /* Who has a file open is served until he closes it; then the filesystem ends. */
    end_load();
    cr_expect_eq(fs_join(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

static int unmount_by_force(void *arg)
{
    (void)arg;
    return umount2(site_point, MNT_FORCE) < 0 && errno != EBUSY ? errno : 0;
}

Test(session_ends, forced_umount_with_handlers_that_wait)
{
    pid_t blocked;

    site_serve(&rig);
    blocked = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, 1));
    cr_expect_eq(site_run(unmount_by_force, NULL), 0);
    cr_expect_eq(site_end(blocked), ECONNABORTED);
    fs_gate_open(&rig.gate);
    fs_join(&rig); /* aborted, if the mount is seen to be; else unmounted */
    cr_expect(rig.result == 0 || rig.result == -ECONNABORTED, "%d", rig.result);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_ends, abort_under_load)
{
    site_serve(&rig);
    under_load();
    cr_expect_eq(site_abort(fs_info(&rig).connection), 0);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
    end_load();
    cr_expect_not(site_mounted(), "an aborted mount is left");
    fs_end(&rig);
}

Test(session_ends, abort_with_handlers_that_wait)
{
    pid_t blocked[2];

    site_serve(&rig);
    for (int i = 0; i < 2; i++)
        blocked[i] = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, 2));
    cr_expect_eq(site_abort(fs_info(&rig).connection), 0);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(site_end(blocked[i]), ECONNABORTED);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_ends, stop_under_load)
{
    site_serve(&rig);
    under_load();
    cr_expect_eq(fs_stop(&rig), 0);
    end_load();
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

/* They outlive the lazy unmount, and so does the connection: what they read as it ends fails like on any mount. */
Test(session_ends, stop_while_files_are_read)
{
    for (int i = 0; i < 10; i++) {
        fs_init(&rig);
        rig.opts.readers = 3;
        site_serve(&rig);
        start(site_read_on);
        FS_UNTIL(rig.calls > 300);
        cr_expect_eq(fs_stop(&rig), 0);
        end_load();
        cr_expect_not(site_mounted());
        fs_end(&rig);
    }
}

Test(session_ends, stop_and_umount_at_the_same_time)
{
    for (int i = 0; i < 8; i++) {
        pid_t other;

        fs_init(&rig);
        rig.opts.readers = 2;
        site_serve(&rig);
        cr_expect_eq(site_run(site_stat_root, NULL), 0);
        other = site_start(unmount_lazily, NULL);
        usleep((useconds_t)i * 300);
        cr_expect_eq(fs_stop(&rig), 0);
        site_end(other);
        cr_expect_not(site_mounted());
        fs_end(&rig);
    }
}

/* ---- while readers wait on rings of their own ------------------------------------------------------------------------ */

static int32_t wait_a_little(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op == MF_OP_READ)
        usleep(1000);
    return FS_DEFAULT;
}

static void readers_on_own_rings(void)
{
    rig.opts.readers = 0;
    rig.script = wait_a_little;
    site_serve(&rig);
    if (!rig.s->ring_count) {
        fs_end(&rig);
        cr_skip_test("needs the fuse module's parameter enable_uring to be on");
    }
    start_load();
    FS_UNTIL(fs_on_own_rings(&rig) > 300);
}

/* The last one comes in the middle of the load, the others when it is over and readers wait in vain. */
Test(session_ends, readers_on_rings_of_their_own_are_stopped)
{
    for (int i = 0; i < 3; i++) {
        fs_init(&rig);
        readers_on_own_rings();
        for (int c = 0; c < CLIENTS && i < 2; c++)
            kill(clients[c], SIGKILL);
        if (i == 0)
            usleep(300000);
        cr_expect_eq(fs_stop(&rig), 0);
        for (int c = 0; c < CLIENTS; c++)
            cr_expect_eq(site_end(clients[c]), i < 2 ? SITE_KILLED + SIGKILL : 0);
        cr_expect_not(site_mounted());
        fs_end(&rig);
    }
}

Test(session_ends, readers_on_rings_of_their_own_see_an_umount)
{
    readers_on_own_rings();
    cr_expect_eq(site_run(unmount_lazily, NULL), 0);
    end_load();
    cr_expect_eq(fs_join(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_ends, readers_on_rings_of_their_own_see_an_abort)
{
    readers_on_own_rings();
    cr_expect_eq(site_abort(fs_info(&rig).connection), 0);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
    end_load();
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_ends, readers_on_rings_of_their_own_die_with_the_server)
{
    struct mf_session_opts o = { .size = sizeof(o) };
    pid_t server = site_server(&o, wait_a_little);

    start_load();
    usleep(500000);
    kill(server, SIGKILL);
    cr_expect_eq(site_end(server), SITE_KILLED + SIGKILL);
    end_load_of_killed();
    umount2(site_point, MNT_DETACH);
}

/* What is mounted there afterwards is somebody else's. */
Test(session_ends, a_successor_at_the_same_place_stays)
{
    site_serve(&rig);
    FS_UNTIL(rig.started == 3);
    cr_expect_eq(umount2(site_point, MNT_DETACH), 0);
    cr_assert_eq(mount("none", site_point, "tmpfs", 0, NULL), 0);
    cr_expect_eq(fs_join(&rig), 0, "%d", rig.result);
    fs_end(&rig);
    cr_expect(site_mounted(), "the session unmounted its successor");
    umount2(site_point, MNT_DETACH);
}

/* ---- a handler that does not end ---------------------------------------------------------------------------------- */

Test(session_ends, stop_with_a_handler_that_waits_too_long)
{
    pid_t blocked;

    rig.opts.stop_timeout_ms = 200;
    site_serve(&rig);
    blocked = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, 1));
    mf_session_stop(rig.s);
    cr_expect_eq(site_end(blocked), ECONNABORTED, "its program waits for ever");
    FS_UNTIL(fs_logged(&rig, "still in handlers") == 1);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_join(&rig), -ETIMEDOUT);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

static int at_gate[2]; /* a pipe: the server's handler is about to wait there */

static int32_t tell_who_waits(struct mf_call *call, struct fs_rig *r)
{
    (void)r;
    if (call->op == MF_OP_READ && call->node == FS_GATE && write(at_gate[1], "", 1) != 1)
        return -EIO;
    return FS_DEFAULT;
}

Test(session_ends, stop_with_a_handler_that_never_ends)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 2, .stop_timeout_ms = 200, .flags = MF_OPT_SIGNALS };
    pid_t server, blocked;
    char c;

    cr_assert_eq(pipe(at_gate), 0);
    server = site_server(&o, tell_who_waits);
    blocked = site_start(site_read_gate, NULL);
    cr_assert_eq(read(at_gate[0], &c, 1), 1);
    kill(server, SIGTERM);
    cr_expect_eq(site_end(server), ETIMEDOUT);
    cr_expect_eq(site_end(blocked), ECONNABORTED);
    cr_expect(site_gone());
}

/* ---- signals, the server in a process of its own ------------------------------------------------------------------- */

static void signalled(int sig, uint32_t flags)
{
    struct mf_session_opts o = { .size = sizeof(o),
                                 .readers = flags & MF_OPT_INLINE ? 1 : 3,
                                 .flags = MF_OPT_SIGNALS | flags };
    pid_t server = site_server(&o, NULL);

    cr_expect_eq(site_run(site_walk, NULL), 0);
    start_load();
    usleep(100000);
    kill(server, sig);
    cr_expect_eq(site_end(server), 0, "signal %d", sig);
    end_load();
    cr_expect(site_gone(), "signal %d leaves the mount", sig);
}

Test(session_ends, sigterm_under_load)
{
    signalled(SIGTERM, 0);
}

Test(session_ends, sigint_under_load)
{
    signalled(SIGINT, 0);
}

Test(session_ends, sighup_under_load)
{
    signalled(SIGHUP, 0);
}

Test(session_ends, sigterm_on_the_calling_thread)
{
    signalled(SIGTERM, MF_OPT_INLINE);
}

/* ---- the death of the server ------------------------------------------------------------------------------------------ */

Test(session_ends, a_killed_server_leaves_errors_and_no_waiting)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 3 };
    pid_t server = site_server(&o, NULL);
    pid_t blocked = site_start(site_read_gate, NULL);

    start_load();
    usleep(200000);
    kill(server, SIGKILL);
    cr_expect_eq(site_end(server), SITE_KILLED + SIGKILL);
    end_load_of_killed();
    cr_expect_eq(site_end(blocked), ECONNABORTED);
    cr_expect(site_mounted(), "nobody was there to unmount it");
    cr_expect_eq(site_run(site_stat_root, NULL), ENOTCONN);
    cr_expect_eq(umount2(site_point, MNT_DETACH), 0);
}

Test(session_ends, a_killed_servers_mount_is_removed_where_asked_for)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 3, .mount_options = "auto_unmount" };
    pid_t server = site_server(&o, NULL);

    cr_expect_eq(site_run(site_walk, NULL), 0);
    start_load();
    usleep(100000);
    kill(server, SIGKILL);
    cr_expect_eq(site_end(server), SITE_KILLED + SIGKILL);
    end_load_of_killed();
    cr_expect(site_gone(), "auto_unmount left the mount");
}

static int32_t exit_on_setattr(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op == MF_OP_SETATTR)
        _exit(55);
    return FS_DEFAULT;
}

static int change_mode(void *arg)
{
    char path[128];

    (void)arg;
    snprintf(path, sizeof(path), "%s/f00", site_point);
    return chmod(path, 0600) < 0 ? errno : 0;
}

Test(session_ends, a_server_that_exits_in_a_handler)
{
    struct mf_session_opts o = { .size = sizeof(o), .readers = 2 };
    pid_t server = site_server(&o, exit_on_setattr);
    int rc;

    cr_expect_eq(site_run(site_walk, NULL), 0);
    rc = site_run(change_mode, NULL);
    cr_expect(rc == ECONNABORTED || rc == ENOTCONN, "%d", rc);
    cr_expect_eq(site_end(server), 55);
    umount2(site_point, MNT_DETACH);
}

/* ---- programs that give up ------------------------------------------------------------------------------------------------ */

static int32_t until_interrupted(struct mf_call *c, struct fs_rig *r)
{
    if (c->op != MF_OP_READ || c->node != FS_GATE)
        return FS_DEFAULT;
    atomic_fetch_add((_Atomic unsigned *)r->data, 1);
    for (int i = 0; i < 20000; i++) {
        if (mf_req_interrupted(c->req) == 1)
            return -EINTR;
        usleep(500);
    }
    return -ETIME;
}

static void killed_while_waiting(int sig, int status, site_fn fn)
{
    _Atomic unsigned waiting = 0;
    pid_t client;

    rig.script = until_interrupted;
    rig.data = &waiting;
    site_serve(&rig);
    for (unsigned i = 1; i <= 3; i++) {
        client = site_start(fn, NULL);
        FS_UNTIL(waiting == i);
        kill(client, sig);
        cr_expect_eq(site_end(client), status, "the program waits although it was killed");
        FS_UNTIL(rig.interrupts >= i); /* FLUSH at the exit may be interrupted as well */
    }
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    fs_end(&rig);
}

Test(session_ends, a_killed_program_interrupts_its_request)
{
    killed_while_waiting(SIGKILL, SITE_KILLED + SIGKILL, site_read_gate);
}

Test(session_ends, a_terminated_program_interrupts_its_request)
{
    killed_while_waiting(SIGTERM, SITE_KILLED + SIGTERM, site_read_gate);
}

static void on_signal(int sig)
{
    (void)sig;
}

static int read_gate_with_a_handler(void *arg)
{
    struct sigaction act = { .sa_handler = on_signal };

    sigaction(SIGINT, &act, NULL);
    return site_read_gate(arg);
}

Test(session_ends, a_signal_makes_read_return_eintr)
{
    killed_while_waiting(SIGINT, EINTR, read_gate_with_a_handler);
}

/* Kept requests learn of it as well, and are answered by another thread. */
static struct mf_req *_Atomic kept;

static int32_t keep(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op != MF_OP_READ || c->node != FS_GATE)
        return FS_DEFAULT;
    mf_req_defer(c->req);
    atomic_store(&kept, c->req);
    return MF_ANSWER_LATER;
}

Test(session_ends, a_kept_request_is_interrupted)
{
    pid_t client;

    rig.opts.readers = 1;
    rig.script = keep;
    site_serve(&rig);
    client = site_start(site_read_gate, NULL);
    FS_UNTIL(kept != NULL);
    cr_expect_eq(mf_req_interrupted(kept), 0);
    cr_expect_eq(site_run(site_walk, NULL), 0, "a kept request blocks its reader");
    kill(client, SIGKILL);
    FS_UNTIL(mf_req_interrupted(kept) == 1);
    cr_expect_eq(mf_reply_err(kept, EINTR), 0);
    cr_expect_eq(site_end(client), SITE_KILLED + SIGKILL);
    cr_expect_eq(mf_reply_err(kept, EINTR), -EALREADY);
    cr_expect_eq(fs_stop(&rig), 0);
    fs_end(&rig);
}

/* ---- the death of a reader --------------------------------------------------------------------------------------------------- */

static int read_gate_expecting_eio(void *arg)
{
    return site_read_gate(arg) == EIO ? 0 : 1;
}

static _Atomic unsigned doomed;
static _Atomic uint32_t doomed_reader; /* of the last one: another may be in the middle of a RELEASE */

static int32_t wait_to_be_cancelled(struct mf_call *c, struct fs_rig *r)
{
    if (c->op != MF_OP_READ || c->node != FS_GATE)
        return FS_DEFAULT;
    atomic_fetch_sub(&r->inside, 1);
    atomic_store(&doomed_reader, c->reader);
    atomic_fetch_add(&doomed, 1);
    for (int i = 0; i < 20000; i++)
        usleep(1000);
    return -ETIME;
}

Test(session_ends, a_cancelled_reader_is_replaced)
{
    uint32_t waiting = 0;

#ifdef __SANITIZE_THREAD__
    cr_skip_test("ThreadSanitizer cannot follow a cancelled thread");
#endif
    rig.script = wait_to_be_cancelled;
    rig.opts.uring = MF_URING_OFF; /* waiting for a ring is no place to be cancelled at */
    site_serve(&rig);
    for (unsigned i = 1; i <= 3; i++) {
        pid_t client = site_start(read_gate_expecting_eio, NULL);
        uint32_t reader;

        FS_UNTIL(doomed == i);
        reader = atomic_load(&doomed_reader);
        cr_assert_lt(reader, 3);
        cr_assert_gt(fs_stats(&rig, reader).in_flight, 0);
        pthread_cancel(rig.s->readers[reader]->thread);
        cr_expect_eq(site_end(client), 0);
        cr_expect_eq(site_run(site_walk, NULL), 0);
        cr_expect_eq(fs_info(&rig).failed_readers, i);
    }
    /* And while they wait for a message; one that is parked would only leave when it is needed. */
    for (uint32_t n = 0; n < 3; n++) {
        if (!atomic_load(&rig.s->readers[n]->crew))
            continue;
        pthread_cancel(rig.s->readers[n]->thread);
        waiting++;
    }
    cr_assert_geq(waiting, 1);
    FS_UNTIL(fs_info(&rig).failed_readers == 3 + waiting);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}
