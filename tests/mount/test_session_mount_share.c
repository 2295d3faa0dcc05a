/* SPDX-License-Identifier: MIT */
/* One mount served by several sessions, several processes, other users; and who may look at it. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mount_site.h"

#define STRANGER 1234u

static struct fs_rig rig;

static void setup(void)
{
    site_begin();
    fs_init(&rig);
    rig.opts.uring = MF_URING_OFF;
}

TestSuite(session_share, .init = setup, .timeout = 60);

static void end(void)
{
    cr_expect_eq(fs_stop(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted(), "the mount is still there");
    fs_end(&rig);
}

static struct mf_negotiated terms_of(struct mf_session *s)
{
    struct mf_negotiated neg;

    cr_assert_eq(mf_session_negotiated(s, &neg, sizeof(neg)), 0);
    return neg;
}

/* ---- a second session in the same process ------------------------------------------------------------------- */

static int32_t answer_for(struct mf_call *call, void *user)
{
    struct fs_rig *r = user;

    atomic_fetch_add(&r->calls, 1);
    return fs_answer(call, &r->gate);
}

static void destroy_for(void *user)
{
    struct fs_rig *r = user;

    atomic_fetch_add(&r->destroyed, 1);
}

static void interrupted_for(struct mf_session *s, uint64_t unique, void *user)
{
    struct fs_rig *r = user;

    (void)s;
    (void)unique;
    atomic_fetch_add(&r->interrupts, 1);
}

static int join(struct fs_rig *r, int fd, const struct mf_negotiated *neg, struct mf_error *err)
{
    struct mf_upcall_ops ops = { .size = sizeof(ops),
                                 .implemented = fs_operations(),
                                 .upcall = answer_for,
                                 .destroy = destroy_for,
                                 .interrupted = interrupted_for };

    return mf_session_from_fd_initialized_upcall(&ops, r, &r->opts, fd, neg, &r->s, err);
}

Test(session_share, a_second_session_joins_by_a_clone)
{
    static struct fs_rig second;
    struct mf_negotiated neg;
    struct mf_error err = { .size = sizeof(err) };
    pid_t clients[2];
    int fd;

    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    fs_init(&second);
    cr_assert_eq(join(&second, fd, &neg, &err), 0, "%s", err.text);
    cr_expect_eq(terms_of(second.s).flags, neg.flags);
    cr_expect_eq(terms_of(second.s).max_write, neg.max_write);
    cr_expect_eq(terms_of(second.s).acl, neg.acl);
    cr_expect_eq(fs_info(&second).connection, fs_info(&rig).connection);
    fs_run(&second);

    /* One blocked in each: both serve. */
    for (int i = 0; i < 2; i++)
        clients[i] = site_start(site_read_gate, NULL);
    FS_UNTIL(rig.gate.waiting + second.gate.waiting == 2);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 1);
    cr_expect_eq(fs_stats(&second, 0).in_flight, 1);
    cr_expect_neq(fs_stats(&rig, 0).fd, fs_stats(&second, 0).fd);
    fs_gate_open(&rig.gate);
    fs_gate_open(&second.gate);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(site_end(clients[i]), 0);
    cr_expect_eq(site_run(site_walk, NULL), 0);

    /* It leaves, and the first goes on; then the mount ends. */
    cr_expect_eq(fs_stop(&second), 0);
    cr_expect(site_mounted(), "a session that joined took the mount with it");
    cr_expect_eq(second.destroyed, 1);
    mf_session_free(second.s);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
}

Test(session_share, the_mounts_end_ends_those_who_joined)
{
    static struct fs_rig second;
    struct mf_negotiated neg;
    int fd;

    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    fs_init(&second);
    second.opts.readers = 3;
    cr_assert_eq(join(&second, fd, &neg, NULL), 0);
    cr_expect_eq(fs_info(&second).channels, 3);
    fs_run(&second);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
    cr_expect_eq(fs_join(&second), 0);
    mf_session_free(second.s);
}

/* The only reader of the one is in a handler, so that the other one reads the INTERRUPT. */
Test(session_share, an_interrupt_reaches_the_other_session)
{
    static struct fs_rig second;
    struct mf_negotiated neg;
    int fd;

    rig.opts.readers = 1;
    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    fs_init(&second);
    cr_assert_eq(join(&second, fd, &neg, NULL), 0);
    fs_run(&second);
    for (int i = 0; i < 8; i++) {
        pid_t client = site_start(site_read_gate, NULL);
        struct fs_rig *holder;
        unsigned before;

        FS_UNTIL(rig.gate.waiting + second.gate.waiting == 1);
        holder = rig.gate.waiting ? &rig : &second;
        before = holder->interrupts;
        kill(client, SIGKILL);
        FS_UNTIL(holder->interrupts == before + 1);
        fs_gate_open(&holder->gate);
        cr_expect_eq(site_end(client), SITE_KILLED + SIGKILL);
        fs_gate_shut(&holder->gate);
    }
    cr_expect_eq(fs_stop(&second), 0);
    mf_session_free(second.s);
    end();
}

Test(session_share, terms_of_another_connection_are_refused)
{
    struct mf_negotiated neg;
    struct mf_error err = { .size = sizeof(err) };
    static struct fs_rig second;
    size_t size = offsetof(struct mf_negotiated, connection);
    struct mf_negotiated *old = malloc(size); /* one byte more is not there */
    int fd;

    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    fs_init(&second);
    neg.connection += 1000;
    cr_expect_eq(join(&second, fd, &neg, &err), -EINVAL);
    cr_expect(strstr(err.text, "connection"), "%s", err.text);
    cr_expect_geq(fcntl(fd, F_GETFD), 0, "the caller's descriptor was closed");

    neg.size = (uint32_t)size;
    memcpy(old, &neg, size);
    cr_assert_eq(join(&second, fd, old, &err), 0, "%s", err.text);
    cr_expect_eq(fs_info(&second).connection, fs_info(&rig).connection);
    free(old);
    fs_run(&second);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
    cr_expect_eq(fs_join(&second), 0);
    mf_session_free(second.s);
}

/* ---- in another process ------------------------------------------------------------------------------------------ */

struct helper {
    int sock;
    uint32_t n;  /* descriptors to be received */
    bool attach; /* and to shake hands on; else to join with terms */
    uint32_t acl;
};

struct told {
    struct mf_negotiated neg;
};

/* What the helper says, in turn: 'r' it runs; then its requests. */
static int helper_main(void *arg)
{
    struct helper *h = arg;
    struct fs_rig *r = calloc(1, sizeof(*r));
    struct mf_upcall_ops ops = { .size = sizeof(ops), .implemented = fs_operations(), .upcall = answer_for };
    struct mf_error err = { .size = sizeof(err) };
    uint64_t requests = 0;
    struct told told;
    int fds[16], rc;

    fs_init(r);
    r->opts.acl = h->acl;
    r->opts.uring = MF_URING_OFF;
    fs_gate_open(&r->gate);
    if (geteuid() != 0 && (open("/dev/fuse", O_RDWR) >= 0 || errno != EACCES))
        return 94; /* the test would prove nothing */
    site_receive_fds(h->sock, fds, h->n, &told, sizeof(told));
    if (h->attach) {
        r->opts.readers = 0;
        rc = mf_session_new_upcall(&ops, r, &r->opts, &r->s, &err);
        if (rc == 0)
            rc = mf_session_attach_fds(r->s, fds, h->n, &err);
    } else {
        rc = join(r, fds[0], &told.neg, &err);
    }
    if (rc < 0) {
        fprintf(stderr, "helper: %s\n", err.text);
        return 93;
    }
    if (h->attach && fs_info(r).channels < h->n)
        return 92;
    if (write(h->sock, "r", 1) != 1)
        return 91;
    rc = mf_session_run(r->s);
    for (uint32_t i = 0; i < fs_info(r).readers; i++)
        requests += fs_stats(r, i).requests;
    if (write(h->sock, &requests, sizeof(requests)) != sizeof(requests))
        return 90;
    mf_session_free(r->s);
    return -rc;
}

static pid_t start_helper(struct helper *h, int *sock, uint32_t uid)
{
    int sv[2];
    pid_t pid;

    site_needs_threads_in_children();
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    h->sock = sv[1];
    pid = site_start_as(uid, helper_main, h);
    close(sv[1]);
    *sock = sv[0];
    return pid;
}

static void helper_runs(int sock)
{
    char c = 0;

    cr_assert_eq(read(sock, &c, 1), 1, "the helper could not join");
    cr_assert_eq(c, 'r');
}

static uint64_t helper_requests(int sock)
{
    uint64_t n = 0;

    cr_assert_eq(read(sock, &n, sizeof(n)), (ssize_t)sizeof(n));
    return n;
}

Test(session_share, another_process_joins_over_a_socket)
{
    struct helper h = { .n = 1 };
    struct told told;
    pid_t helper, client;
    int sock, fd;

    helper = start_helper(&h, &sock, 0);
    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    told.neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    site_send_fds(sock, &fd, 1, &told, sizeof(told));
    close(fd);
    helper_runs(sock);

    /* With our only reader at the gate everything else is the helper's. (A helper opens its own gate.) */
    client = 0;
    for (int i = 0; i < 50 && rig.gate.waiting == 0; i++) {
        if (client)
            cr_expect_eq(site_end(client), 0);
        client = site_start(site_read_gate, NULL);
        for (int k = 0; k < 20 && rig.gate.waiting == 0; k++)
            usleep(5000);
    }
    cr_assert_eq(rig.gate.waiting, 1);
    cr_expect_eq(site_run(site_walk, NULL), 0, "the other process does not serve");
    fs_gate_open(&rig.gate);
    cr_expect_eq(site_end(client), 0);
    end();
    cr_expect_gt(helper_requests(sock), FS_FILES);
    cr_expect_eq(site_end(helper), 0);
    close(sock);
}

Test(session_share, the_death_of_another_process_leaves_the_mount_alive)
{
    struct helper h = { .n = 1 };
    struct told told;
    pid_t helper;
    int sock, fd;

    helper = start_helper(&h, &sock, 0);
    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    told.neg = terms_of(rig.s);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    site_send_fds(sock, &fd, 1, &told, sizeof(told));
    close(fd);
    helper_runs(sock);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    kill(helper, SIGKILL);
    cr_expect_eq(site_end(helper), SITE_KILLED + SIGKILL);
    cr_expect_eq(site_run(site_walk, NULL), 0, "the mount died with one of its servers");
    end();
    close(sock);
}

/* ---- a mount made elsewhere, and its clones, for somebody who may not open the device ----------------------------- */

Test(session_share, an_unprivileged_process_serves_what_it_is_given)
{
    struct helper h = { .n = 3, .attach = true };
    struct told told = { .neg = { .size = 0 } };
    pid_t helper;
    int sock, fds[3];

    helper = start_helper(&h, &sock, SITE_NOBODY);
    fds[0] = site_mount_elsewhere("allow_other");
    fds[1] = site_clone(fds[0]);
    fds[2] = site_clone(fds[0]);
    site_send_fds(sock, fds, 3, &told, sizeof(told));
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    helper_runs(sock);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(site_run_as(STRANGER, site_walk, NULL), 0);
    cr_expect_eq(umount2(site_point, MNT_DETACH), 0);
    cr_expect_gt(helper_requests(sock), FS_FILES);
    cr_expect_eq(site_end(helper), 0);
    close(sock);
}

Test(session_share, its_access_list_may_be_narrower_than_the_mounts)
{
    struct helper h = { .n = 2, .attach = true, .acl = MF_ACL_ROOT_AND_OWNER };
    struct told told = { .neg = { .size = 0 } };
    pid_t helper;
    int sock, fds[2];

    helper = start_helper(&h, &sock, SITE_NOBODY);
    fds[0] = site_mount_elsewhere("allow_other");
    fds[1] = site_clone(fds[0]);
    site_send_fds(sock, fds, 2, &told, sizeof(told));
    for (int i = 0; i < 2; i++)
        close(fds[i]);
    helper_runs(sock);
    for (int i = 0; i < 6; i++) { /* whichever reader it is */
        cr_expect_eq(site_run(site_walk, NULL), 0, "root");
        cr_expect_eq(site_run_as(SITE_NOBODY, site_walk, NULL), 0, "the owner");
        cr_expect_eq(site_run_as(STRANGER, site_stat_root, NULL), EACCES, "a stranger");
    }
    cr_expect_eq(umount2(site_point, MNT_DETACH), 0);
    helper_requests(sock);
    cr_expect_eq(site_end(helper), 0);
    close(sock);
}

Test(session_share, attaching_in_this_process)
{
    struct mf_error err = { .size = sizeof(err) };
    int fds[3], unbound = open("/dev/fuse", O_RDWR | O_CLOEXEC), null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int mixed[2];

    fds[0] = site_mount_elsewhere("");
    fds[1] = site_clone(fds[0]);
    fds[2] = site_clone(fds[1]);
    rig.opts.readers = 1; /* fewer than descriptors: each has one all the same */
    fs_make(&rig);
    cr_expect_eq(mf_session_attach_fds(rig.s, &null, 1, &err), -ENOTTY);
    mixed[0] = fds[0], mixed[1] = null;
    cr_expect_eq(mf_session_attach_fds(rig.s, mixed, 2, &err), -ENOTTY);
    mixed[1] = unbound;
    cr_expect_eq(mf_session_attach_fds(rig.s, mixed, 2, &err), -EINVAL, "%s", err.text);
    cr_expect(strstr(err.text, "different connections"), "%s", err.text);
    for (int i = 0; i < 3; i++)
        cr_expect_geq(fcntl(fds[i], F_GETFD), 0, "closed by a failure");
    cr_assert_eq(mf_session_attach_fds(rig.s, fds, 3, &err), 0, "%s", err.text);
    cr_expect_eq(mf_session_attach_fds(rig.s, fds, 3, &err), -EBUSY);
    cr_expect_eq(mf_session_unmount(rig.s), -ENOTCONN, "it is not ours");
    fs_run(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(fs_info(&rig).readers, 3);
    cr_expect_eq(fs_info(&rig).channels, 3);
    cr_expect_eq(umount2(site_point, MNT_DETACH), 0);
    cr_expect_eq(fs_join(&rig), 0);
    for (int i = 0; i < 3; i++)
        cr_expect_lt(fcntl(fds[i], F_GETFD), 0, "not closed in the end");
    fs_end(&rig);
    close(unbound);
    close(null);
}

Test(session_share, an_unbound_descriptor_is_refused_in_words)
{
    struct mf_error err = { .size = sizeof(err) };
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    fs_make(&rig);
    cr_expect_eq(mf_session_attach_fds(rig.s, &fd, 1, &err), -EPERM, "%s", err.text);
    cr_expect(strstr(err.text, "not bound"), "%s", err.text);
    cr_expect_geq(fcntl(fd, F_GETFD), 0);
    close(fd);
    fs_end(&rig);
}

Test(session_share, a_mount_point_may_be_a_descriptor)
{
    struct mf_error err = { .size = sizeof(err) };
    int fd = site_mount_elsewhere("");
    char path[32];

    fs_make(&rig);
    snprintf(path, sizeof(path), "/dev/fd/%d", fd);
    cr_assert_eq(mf_session_mount(rig.s, path, &err), 0, "%s", err.text);
    fs_run(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect(site_mounted(), "whoever mounted it unmounts it");
    umount2(site_point, MNT_DETACH);
    fs_end(&rig);
}

/* ---- users --------------------------------------------------------------------------------------------------------- */

static void users(uint32_t acl, const char *mount_options, int owner, int stranger)
{
    fs_init(&rig);
    rig.opts.uring = MF_URING_OFF;
    rig.opts.readers = 3;
    rig.opts.acl = acl;
    rig.opts.mount_options = mount_options;
    site_serve(&rig);
    for (int i = 0; i < 6; i++) {
        cr_expect_eq(site_run(site_stat_root, NULL), owner, "acl %u, owner", acl);
        cr_expect_eq(site_run_as(STRANGER, site_stat_root, NULL), stranger, "acl %u, stranger", acl);
    }
    if (stranger == 0)
        cr_expect_eq(site_run_as(STRANGER, site_walk, NULL), 0);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
}

Test(session_share, who_may_look)
{
    users(MF_ACL_OWNER, NULL, 0, EACCES);
    users(MF_ACL_ROOT_AND_OWNER, NULL, 0, EACCES);
    users(MF_ACL_ALL, NULL, 0, 0);
    users(MF_ACL_OWNER, "allow_other", 0, 0);
}

/* ---- children of the server ---------------------------------------------------------------------------------------- */

static unsigned devices_open(const char *dir)
{
    char path[300], target[64];
    unsigned n = 0;

    for (int fd = 0; fd < 256; fd++) {
        ssize_t len;

        snprintf(path, sizeof(path), "%s/%d", dir, fd);
        len = readlink(path, target, sizeof(target) - 1);
        target[len > 0 ? len : 0] = '\0';
        n += strcmp(target, "/dev/fuse") == 0;
    }
    return n;
}

static int exec_and_sleep(void *arg)
{
    (void)arg;
    execl("/bin/sleep", "sleep", "30", (char *)NULL);
    return 1;
}

Test(session_share, no_descriptor_survives_exec)
{
    char dir[64], exe[256];
    int clone;
    pid_t pid;

    rig.opts.readers = 3;
    site_serve(&rig);
    FS_UNTIL(rig.started == 3);
    cr_assert_eq(mf_session_clone_fd(rig.s, &clone), 0);
    cr_expect_eq(devices_open("/proc/self/fd"), 4);
    pid = site_start(exec_and_sleep, NULL);
    snprintf(dir, sizeof(dir), "/proc/%d/exe", pid);
    for (int i = 0; i < 1000; i++) {
        ssize_t n = readlink(dir, exe, sizeof(exe) - 1);

        exe[n > 0 ? n : 0] = '\0';
        if (strstr(exe, "sleep") || strstr(exe, "coreutils") || strstr(exe, "busybox"))
            break;
        usleep(5000);
    }
    snprintf(dir, sizeof(dir), "/proc/%d/fd", pid);
    cr_expect_eq(devices_open(dir), 0);
    kill(pid, SIGKILL);
    site_end(pid);
    close(clone);
    end();
}

/* The children of fork() without exec(), as of a web server's workers. */
static int sleep_on(void *arg)
{
    (void)arg;
    while (pause() < 0)
        continue;
    return 0;
}

static int open_file_through_the_end(void *arg)
{
    int *pipes = arg;
    char path[128], c;
    int fd;

    snprintf(path, sizeof(path), "%s/f05", site_point);
    fd = open(path, O_RDONLY);
    if (fd < 0 || write(pipes[1], "", 1) != 1 || read(pipes[2], &c, 1) != 1)
        return 1;
    return read(fd, &c, 1) < 0 ? errno : 0; /* nobody serves it any more: an error, not a wait for ever */
}

Test(session_share, a_child_does_not_keep_the_connection_alive)
{
    int to_us[2], to_client[2], pipes[3];
    pid_t lingering, client;
    char c;

    cr_assert_eq(pipe2(to_us, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(to_client, O_CLOEXEC), 0);
    pipes[1] = to_us[1], pipes[2] = to_client[0];
    rig.opts.readers = 2;
    site_serve(&rig);
    client = site_start(open_file_through_the_end, pipes);
    cr_assert_eq(read(to_us[0], &c, 1), 1);
    lingering = site_start(sleep_on, NULL);
    usleep(20000);
    {
        char dir[64];

        snprintf(dir, sizeof(dir), "/proc/%d/fd", lingering);
        cr_expect_eq(devices_open(dir), 0, "the child has the device open");
    }
    end(); /* lazily: the client's file is still open */
    cr_assert_eq(write(to_client[1], "", 1), 1);
    cr_expect_eq(site_end(client), ENOTCONN);
    cr_expect_eq(kill(lingering, 0), 0);
    kill(lingering, SIGKILL);
    site_end(lingering);
}

static int free_it(void *arg)
{
    mf_session_free(((struct fs_rig *)arg)->s); /* as an atexit() handler might */
    return 0;
}

static void freed_by_children(void)
{
    rig.opts.readers = 2;
    site_serve(&rig);
    FS_UNTIL(rig.started >= 2);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(site_run(free_it, &rig), 0);
    FS_UNTIL(atomic_load(&rig.s->monitor_asleep)); /* threads that wait when the child is made do not exist in it */
    cr_expect_eq(site_run(free_it, &rig), 0);
    cr_expect(site_mounted());
    cr_expect_eq(rig.destroyed, 0);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
}

Test(session_share, a_child_that_frees_the_session_leaves_the_mount_alone)
{
    freed_by_children();
}

Test(session_share, a_child_that_frees_it_leaves_rings_alone_where_there_are_some)
{
    rig.opts.uring = MF_URING_AUTO;
    freed_by_children();
}

static int exit_at_once(void *arg)
{
    (void)arg;
    return 0;
}

Test(session_share, forks_under_load)
{
    int times = 3;
    pid_t clients[3];

    rig.opts.readers = 3;
    site_serve(&rig);
    for (int i = 0; i < 3; i++)
        clients[i] = site_start(site_walk, &times);
    for (int i = 0; i < 60; i++)
        cr_expect_eq(site_run(exit_at_once, NULL), 0);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(site_end(clients[i]), 0);
    end();
}
