/* SPDX-License-Identifier: MIT */
/* Sessions on real mounts: how many readers serve what, on which descriptors, under load and again and again. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "mount_site.h"

static struct fs_rig rig;

static void setup(void)
{
    site_begin();
    fs_init(&rig);
    rig.opts.uring = MF_URING_OFF;
}

TestSuite(session_mount, .init = setup, .timeout = 60);

static void end(void)
{
    cr_expect_eq(fs_stop(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted(), "the mount is still there");
    fs_end(&rig);
}

/* ---- the three reader modes ---------------------------------------------------------------------------------- */

static void serve_with(uint32_t readers, uint32_t clone, uint32_t channels)
{
    struct mf_info info;
    uint64_t requests = 0, replies = 0;

    rig.opts.readers = readers;
    rig.opts.clone_fd = clone;
    site_serve(&rig);
    cr_expect(site_mounted());
    cr_expect_str_eq(mf_session_mountpoint(rig.s), site_point);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    info = fs_info(&rig);
    cr_expect_eq(info.readers, readers);
    cr_expect_eq(info.channels, channels);
    cr_expect_eq(info.clone_error, 0);
    cr_expect_eq(info.transport, MF_TRANSPORT_DEVICE);
    cr_expect_gt(info.connection, 0);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_not(site_mounted());
    for (uint32_t i = 0; i < readers; i++) {
        requests += fs_stats(&rig, i).requests;
        replies += fs_stats(&rig, i).replies;
        cr_expect_eq(fs_stats(&rig, i).in_flight, 0);
        cr_expect_eq(fs_stats(&rig, i).malformed, 0);
    }
    cr_expect_geq(requests, FS_FILES * 4ull);
    cr_expect_leq(replies, requests);
    fs_end(&rig);
}

Test(session_mount, one_reader)
{
    serve_with(1, MF_CLONE_AUTO, 1);
}

Test(session_mount, readers_on_one_descriptor)
{
    serve_with(3, MF_CLONE_OFF, 1);
}

Test(session_mount, readers_on_clones)
{
    serve_with(4, MF_CLONE_REQUIRE, 4);
}

Test(session_mount, on_the_calling_thread)
{
    rig.opts.flags = MF_OPT_INLINE;
    serve_with(1, MF_CLONE_AUTO, 1);
}

/* ---- readers at the same time ------------------------------------------------------------------------------------ */

static void blocked_at_once(unsigned n, uint32_t clone)
{
    pid_t clients[8];

    rig.opts.readers = n;
    rig.opts.clone_fd = clone;
    site_serve(&rig);
    for (unsigned i = 0; i < n; i++)
        clients[i] = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, n), "%u of %u handlers run at once", rig.gate.waiting, n);
    for (uint32_t i = 0; i < n; i++) {
        struct mf_reader_stats st = fs_stats(&rig, i);

        cr_expect_eq(st.in_flight, 1, "reader %u holds %llu", i, (unsigned long long)st.in_flight);
        cr_expect_geq(st.fd, 0);
        cr_expect_geq(fcntl(st.fd, F_GETFD), 0);
        cr_expect(fcntl(st.fd, F_GETFD) & FD_CLOEXEC, "reader %u's descriptor survives exec", i);
        cr_expect_eq(site_connection(st.fd), fs_info(&rig).connection);
        for (uint32_t k = 0; k < i; k++)
            cr_expect_eq(fs_stats(&rig, k).fd == st.fd, clone == MF_CLONE_OFF, "readers %u and %u", k, i);
    }
    fs_gate_open(&rig.gate);
    for (unsigned i = 0; i < n; i++)
        cr_expect_eq(site_end(clients[i]), 0);
    end();
}

Test(session_mount, two_blocked_handlers_are_in_flight_at_once)
{
    blocked_at_once(2, MF_CLONE_REQUIRE);
}

Test(session_mount, each_of_five_readers_serves_on_a_descriptor_of_its_own)
{
    blocked_at_once(5, MF_CLONE_REQUIRE);
}

Test(session_mount, three_readers_serve_on_one_descriptor)
{
    blocked_at_once(3, MF_CLONE_OFF);
}

Test(session_mount, one_more_reader_while_all_are_blocked)
{
    pid_t clients[2];

    site_serve(&rig);
    clients[0] = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, 1));
    cr_expect_eq(mf_session_add_reader(rig.s), 1);
    clients[1] = site_start(site_read_gate, NULL);
    cr_assert(fs_gate_await(&rig.gate, 2), "the new reader does not serve");
    cr_expect_neq(fs_stats(&rig, 0).fd, fs_stats(&rig, 1).fd);
    fs_gate_open(&rig.gate);
    cr_expect_eq(site_end(clients[0]), 0);
    cr_expect_eq(site_end(clients[1]), 0);
    end();
}

/* ---- the session's own calls --------------------------------------------------------------------------------------- */

Test(session_mount, a_clone_for_the_caller)
{
    int fd = -1, other = -1;

    site_serve(&rig);
    FS_UNTIL(rig.started == 1);
    cr_assert_eq(mf_session_clone_fd(rig.s, &fd), 0);
    cr_assert_eq(mf_session_clone_fd(rig.s, &other), 0);
    cr_expect_neq(fd, other);
    cr_expect_neq(fd, fs_stats(&rig, 0).fd);
    cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    cr_expect_eq(site_connection(fd), fs_info(&rig).connection);
    close(fd);
    close(other);
    cr_expect_eq(site_run(site_walk, NULL), 0, "closing a clone hurt the mount");
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(mf_session_clone_fd(rig.s, &fd), -ENOTCONN);
    fs_end(&rig);
}

Test(session_mount, unmounted_by_the_session)
{
    site_serve(&rig);
    cr_expect_eq(site_run(site_stat_root, NULL), 0);
    cr_expect_eq(mf_session_unmount(rig.s), 0);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_not(site_mounted());
    cr_expect_eq(mf_session_unmount(rig.s), -ENOTCONN);
    fs_end(&rig);
}

Test(session_mount, mounted_and_freed_without_a_run)
{
    struct mf_error err = { .size = sizeof(err) };

    fs_make(&rig);
    cr_assert_eq(mf_session_mount(rig.s, site_point, &err), 0, "%s", err.text);
    cr_expect(site_mounted());
    cr_expect_eq(mf_session_mount(rig.s, site_point, &err), -EBUSY);
    fs_end(&rig);
    cr_expect_not(site_mounted());
}

Test(session_mount, notifications_reach_the_kernel)
{
    site_serve(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(mf_notify_inval_inode(rig.s, FS_FILE0, 0, 0), 0);
    cr_expect_eq(mf_notify_inval_inode(rig.s, 4711, -1, 0), 0, "it had none");
    cr_expect_eq(mf_notify_inval_entry(rig.s, MF_ROOT, "f00", 3), 0);
    cr_expect_eq(mf_notify_inval_entry(rig.s, MF_ROOT, "never seen", 10), 0);
    end();
}

Test(session_mount, the_mounts_end_finds_a_failing_start)
{
    struct mf_error err = { .size = sizeof(err) };
    char path[128];

    fs_make(&rig);
    snprintf(path, sizeof(path), "%s/missing", site_point);
    cr_expect_eq(mf_session_mount(rig.s, path, &err), -ENOENT);
    cr_expect(strstr(err.text, "missing"), "%s", err.text);
    /* The session is none the worse for it. */
    cr_assert_eq(mf_session_mount(rig.s, site_point, &err), 0, "%s", err.text);
    fs_run(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    end();
}

/* ---- under load ------------------------------------------------------------------------------------------------------- */

static int load_for_two_seconds(void *arg)
{
    uint64_t until = mf__now_ns() + 2 * MF_SECOND;

    while (mf__now_ns() < until) {
        int rc = site_walk(arg);

        if (rc)
            return rc;
    }
    return 0;
}

Test(session_mount, eight_programs_for_two_seconds)
{
    pid_t clients[8];
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned busy = 0, expected = cpus < 4 ? (unsigned)cpus : 4; /* more serve only where handlers wait */

    rig.opts.readers = 4;
    rig.opts.clone_fd = MF_CLONE_REQUIRE;
    site_serve(&rig);
    for (int i = 0; i < 8; i++)
        clients[i] = site_start(load_for_two_seconds, NULL);
    for (int i = 0; i < 8; i++)
        cr_expect_eq(site_end(clients[i]), 0, "client %d", i);
    for (uint32_t i = 0; i < 4; i++)
        busy += fs_stats(&rig, i).requests > 100;
    cr_expect_geq(busy, expected, "%u of 4 readers served, not %u", busy, expected);
    end();
}

/* ---- again and again ---------------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_MEMORY false /* what is freed stays for a while */
#else
#define COUNTS_MEMORY true
#endif

static long resident_kib(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long kib = 0;

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

Test(session_mount, fifty_mounts_leave_nothing)
{
    unsigned fds = 0, threads = 0;
    long kib = 0;

    for (int i = 0; i < 55; i++) {
        fs_init(&rig);
        rig.opts.uring = MF_URING_OFF;
        rig.opts.readers = 1 + (uint32_t)i % 4;
        site_serve(&rig);
        cr_assert_eq(site_run(site_stat_root, NULL), 0, "cycle %d", i);
        end();
        if (i == 4) { /* what is made once is made */
            fds = site_count("/proc/self/fd");
            threads = site_count("/proc/self/task");
            kib = resident_kib();
        }
    }
    cr_expect_eq(site_count("/proc/self/fd"), fds);
    cr_expect_eq(site_count("/proc/self/task"), threads);
    if (COUNTS_MEMORY)
        cr_expect_leq(resident_kib(), kib + 1024, "%ld KiB became %ld", kib, resident_kib());
}

/* ---- io_uring, where the machine lets it be turned on and off ---------------------------------------------------------------- */

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"

static bool set_parameter(const char *value)
{
    int fd = open(PARAMETER, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, value, 1) == 1;

    if (fd >= 0)
        close(fd);
    return done;
}

static char get_parameter(void)
{
    int fd = open(PARAMETER, O_RDONLY | O_CLOEXEC);
    char c = '?';

    if (fd >= 0 && read(fd, &c, 1) != 1)
        c = '?';
    if (fd >= 0)
        close(fd);
    return c;
}

static void serve_and_walk(const char *value, uint32_t transport)
{
    struct mf_info info;

    fs_init(&rig);
    rig.opts.uring = MF_URING_AUTO;
    rig.opts.readers = 2;
    site_serve(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0, "with %s", value);
    info = fs_info(&rig);
    if (transport)
        cr_expect_eq(info.transport, transport, "with %s: %s", value, info.transport_reason);
    cr_expect_str_not_empty(info.transport_reason);
    cr_expect_eq(fs_stop(&rig), 0, "with %s: %d", value, rig.result);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}

Test(session_mount, with_io_uring_on_and_off)
{
    char before = get_parameter();

    if (before == '?' || !set_parameter("N"))
        cr_skip_test("needs the fuse module's parameter enable_uring, which cannot be set here");
    serve_and_walk("N", MF_TRANSPORT_DEVICE);
    if (set_parameter("Y"))
        serve_and_walk("Y", 0);
    set_parameter(before == 'Y' ? "Y" : "N");
}

Test(session_mount, io_uring_required_where_it_is_off)
{
    struct mf_error err = { .size = sizeof(err) };

    if (get_parameter() != 'N')
        cr_skip_test("needs the fuse module's parameter enable_uring to be off");
    rig.opts.uring = MF_URING_REQUIRE;
    rig.opts.readers = 2;
    fs_make(&rig);
    cr_expect_lt(mf_session_mount(rig.s, site_point, &err), 0);
    cr_expect(strstr(err.text, "io_uring is required"), "%s", err.text);
    cr_expect_not(site_mounted());
    fs_end(&rig);
}
