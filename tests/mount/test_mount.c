/* SPDX-License-Identifier: MIT */
/*
 * test_mount.c - mounts by each way, their ends, and what goes wrong.
 *
 * Each test has a mount namespace of its own, so that whatever it leaves behind goes with its process. Who
 * looks at a mount is always a child that can be waited for with a limit: it may hang, the test may not.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mount/internal.h"
#include "wire/kernel.h"

#define NOBODY 65534
#define LIMIT .timeout = 60

static char dir[64];   /* of this test */
static char point[80]; /* a mount point in it */
static struct mf_error err;

/* ---- a place to mount ------------------------------------------------------------------------------ */

static void pause_ms(int ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };

    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

static void set_up(void)
{
    err = (struct mf_error){ .size = sizeof(err) };
    if (geteuid() != 0)
        cr_skip_test("needs root, for a mount namespace of its own");
    if (access("/dev/fuse", F_OK) < 0)
        cr_skip_test("needs /dev/fuse, which is missing here");
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        cr_skip_test("needs a mount namespace of its own, which is not permitted here");
    signal(SIGUSR1, SIG_IGN);
    snprintf(dir, sizeof(dir), "/tmp/manifuse-test-mount-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(chmod(dir, 0755), 0);
    snprintf(point, sizeof(point), "%s/m", dir);
    cr_assert_eq(mkdir(point, 0755), 0);
}

static void tear_down(void)
{
    char command[128];

    if (!dir[0])
        return;
    while (umount2(point, MNT_DETACH) == 0 || umount2("/dev/fuse", MNT_DETACH) == 0 || umount2(dir, MNT_DETACH) == 0)
        ;
    snprintf(command, sizeof(command), "/bin/rm -rf '%s'", dir);
    cr_expect_eq(system(command), 0);
}

TestSuite(mount, .init = set_up, .fini = tear_down, LIMIT);

static struct mf__mount_opts options(const char *text)
{
    struct mf__mount_opts o;

    cr_assert_eq(mf__mount_opts_parse(text, &o, &err), 0, "%s", err.text);
    return o;
}

/* How many mounts there are at the mount point, and the last one's line. */
static int mounts_at(const char *path, char *line, size_t size)
{
    char text[1024], want[128];
    FILE *f = fopen("/proc/self/mountinfo", "r");
    int n = 0;

    cr_assert_not_null(f);
    snprintf(want, sizeof(want), " %s ", path);
    while (fgets(text, sizeof(text), f)) {
        if (!strstr(text, want))
            continue;
        n++;
        if (line)
            snprintf(line, size, "%s", text);
    }
    fclose(f);
    return n;
}

static bool gone_within(const char *path, int ms)
{
    for (; mounts_at(path, NULL, 0); ms -= 10) {
        if (ms <= 0)
            return false;
        pause_ms(10);
    }
    return true;
}

static int count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int wait_child(pid_t pid, int ms)
{
    int status;

    for (; waitpid(pid, &status, WNOHANG) == 0; ms -= 5) {
        if (ms <= 0) {
            kill(pid, SIGKILL);
            return -1;
        }
        pause_ms(5);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* errno of stat(2) on the path, from another process; -1 = it hangs. */
static int look(const char *path, int close_this)
{
    pid_t pid = fork();
    struct stat st;

    if (pid == 0) {
        if (close_this >= 0)
            close(close_this);
        _exit(stat(path, &st) < 0 ? errno : 0);
    }
    return wait_child(pid, 10000);
}

/* ---- the smallest server ---------------------------------------------------------------------------- */

struct responder {
    int fd;
    pthread_t thread;
    atomic_int inits, requests;
    atomic_bool over, ready;
    int init_error; /* answer INIT with it */
    atomic_bool leave;
    /* what `after` was told */
    int calls, after_rc;
};

static void answer(struct responder *r, uint64_t unique, int error, const void *body, size_t size)
{
    struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + size), .error = error, .unique = unique };
    char out[1024];

    memcpy(out, &head, sizeof(head));
    if (size)
        memcpy(out + sizeof(head), body, size);
    if (write(r->fd, out, head.len) < 0 && errno != ENOENT && errno != ENODEV)
        atomic_store(&r->over, true);
}

static void answer_one(struct responder *r, const struct fuse_in_header *in)
{
    struct fuse_init_out init = { .major = 7, .minor = 31, .max_write = 4096 };
    struct fuse_attr_out attr = { .attr = { .ino = 1, .mode = S_IFDIR | 0755, .nlink = 2 } };

    if (in->opcode == FUSE_INIT) {
        atomic_fetch_add(&r->inits, 1);
        answer(r, in->unique, r->init_error, &init, r->init_error ? 0 : sizeof(init));
    } else if (in->opcode == FUSE_GETATTR) {
        atomic_fetch_add(&r->requests, 1);
        answer(r, in->unique, 0, &attr, sizeof(attr));
    } else if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET && in->opcode != FUSE_INTERRUPT) {
        atomic_fetch_add(&r->requests, 1);
        answer(r, in->unique, -ENOSYS, NULL, 0);
    }
}

static void *respond(void *arg)
{
    struct responder *r = arg;
    union {
        struct fuse_in_header head;
        char bytes[16384];
    } in;

    atomic_store(&r->ready, true);
    while (!atomic_load(&r->over)) {
        ssize_t n = read(r->fd, &in, sizeof(in));

        if (n >= (ssize_t)sizeof(in.head))
            answer_one(r, &in.head);
        else if (n < 0 && (errno == EINTR || errno == ENOENT) && !atomic_load(&r->leave))
            continue;
        else
            break;
    }
    atomic_store(&r->over, true);
    return NULL;
}

static void wake(int sig)
{
    (void)sig;
}

static int respond_on(int fd, void *user)
{
    struct responder *r = user;
    struct sigaction act = { .sa_handler = wake };

    sigaction(SIGUSR1, &act, NULL);
    r->fd = fd;
    if (pthread_create(&r->thread, NULL, respond, r))
        return -EAGAIN;
    while (!atomic_load(&r->ready))
        pause_ms(1);
    return 0;
}

/* The thread has seen the end of its mount. */
static bool over_within(struct responder *r, int ms)
{
    for (; !atomic_load(&r->over) && ms > 0; ms -= 5)
        pause_ms(5);
    return atomic_load(&r->over);
}

/* A thread that is in read(2) on a device on which nothing was mounted wakes up by a signal only. */
static void end_responder(struct responder *r)
{
    atomic_store(&r->leave, true);
    while (!atomic_load(&r->over)) {
        pthread_kill(r->thread, SIGUSR1);
        pause_ms(2);
    }
    pthread_join(r->thread, NULL);
}

static void note_after(int rc, void *user)
{
    struct responder *r = user;

    r->calls++;
    r->after_rc = rc;
    if (rc < 0)
        end_responder(r);
}

/* Mount, with a server on the mount. */
static int mount_served(const char *text, struct mf__mount *m, struct responder *r)
{
    struct mf__mount_opts o = options(text);
    int rc;

    memset(r, 0, sizeof(*r));
    rc = mf__mount(point, &o, NULL, m, &err);
    return rc ? rc : respond_on(m->fd, r);
}

/* Unmount, and all there was goes. */
static void end_served(struct mf__mount *m, struct responder *r)
{
    cr_expect_eq(mf__unmount(m), 0);
    cr_expect(over_within(r, 5000), "the server does not see the end of its mount");
    end_responder(r);
    close(m->fd);
    mf__mount_release(m);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

/* ---- refusing system calls --------------------------------------------------------------------------- */

/* From now on the call fails with this error, in this process and its children. */
static void refuse(long call, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = MF__ARRAY_SIZE(code), .filter = code };

    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* ---- direct mounts ------------------------------------------------------------------------------------ */

static void expect_direct(const char *how)
{
    char line[1024];
    struct responder r;
    struct mf__mount m;
    int before = count_fds(), rc;

    rc = mount_served("subtype=probe,fsname=a\\,b c,allow_other,default_permissions,max_read=65536,noexec,noatime", &m,
                      &r);
    cr_assert_eq(rc, 0, "%s: %d %s", how, rc, err.text);
    cr_expect_geq(m.fd, 0);
    cr_expect(fcntl(m.fd, F_GETFD) & FD_CLOEXEC, "%s: the device is inherited", how);
    cr_expect_str_eq(m.path, point);
    cr_expect_not(m.by_helper);
    cr_expect_eq(m.helper_sock, -1);
    cr_assert_eq(mounts_at(point, line, sizeof(line)), 1);
    cr_expect_not_null(strstr(line, " - fuse.probe a,b\\040c rw,"), "%s: %s", how, line);
    cr_expect_not_null(strstr(line, " rw,nosuid,nodev,noexec,noatime "), "%s: %s", how, line);
    cr_expect_not_null(strstr(line, "user_id=0,group_id=0,default_permissions,allow_other,max_read=65536"), "%s", line);
    cr_expect_eq(strtoull(line, NULL, 10), m.mount_id, "%s: %llu, %s", how, (unsigned long long)m.mount_id, line);
    cr_expect_eq(major(m.dev), 0);
    cr_expect_neq(minor(m.dev), 0);
    cr_expect_eq(look(point, m.fd), 0);
    cr_expect_eq(atomic_load(&r.inits), 1);
    end_served(&m, &r);
    cr_expect_eq(count_fds(), before, "%s: descriptors are left", how);
}

Test(mount, by_the_new_api)
{
    expect_direct("fsopen");
}

Test(mount, by_mount_2_where_the_new_api_is_missing)
{
    refuse(SYS_fsopen, ENOSYS);
    expect_direct("mount(2)");
}

Test(mount, by_mount_2_where_the_new_api_is_filtered)
{
    refuse(SYS_fsopen, EPERM);
    expect_direct("mount(2)");
}

Test(mount, by_mount_2_where_half_the_new_api_is_filtered)
{
    refuse(SYS_fsconfig, EPERM);
    expect_direct("mount(2)");
}

Test(mount, flags_reach_the_kernel_either_way)
{
    static const char text[] = "ro,sync,dirsync,strictatime,nodiratime,suid,dev";
    struct responder r;
    struct mf__mount m;
    char line[1024];

    for (int i = 0; i < 2; i++) {
        cr_assert_eq(mount_served(text, &m, &r), 0, "%s", err.text);
        cr_assert_eq(mounts_at(point, line, sizeof(line)), 1);
        cr_expect_not_null(strstr(line, " ro,nodiratime "), "%s", line);
        cr_expect_not_null(strstr(line, " - fuse manifuse ro,sync,dirsync,user_id=0"), "%s", line);
        end_served(&m, &r);
        refuse(SYS_fsopen, ENOSYS);
    }
}

Test(mount, asks_nothing_of_its_own_server)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { 0 };
    struct mf__ident ident;
    struct mf__mount m;

    for (int i = 0; i < 2; i++) {
        cr_assert_eq(mf__mount(point, &o, NULL, &m, &err), 0, "%s", err.text);
        /* Nobody reads the device: a request would wait for ever, and so would the test. */
        cr_assert_eq(mf__mount_identify(point, &ident), 0);
        cr_expect_eq(ident.dev, m.dev);
        cr_expect_eq(ident.id, m.mount_id);
        cr_expect_eq(ident.unique_id, m.unique_id);
        memset(&r, 0, sizeof(r));
        cr_assert_eq(respond_on(m.fd, &r), 0);
        end_served(&m, &r);
        cr_expect_eq(atomic_load(&r.requests), 0);
        refuse(SYS_fsopen, ENOSYS);
    }
}

Test(mount, at_a_relative_path_with_odd_characters)
{
    struct mf__mount_opts o = options(NULL);
    char odd[160];
    struct mf__mount m;

    snprintf(odd, sizeof(odd), "%s/a \\b\tc\nd'e", dir);
    cr_assert_eq(mkdir(odd, 0755), 0);
    cr_assert_eq(chdir(dir), 0);
    cr_assert_eq(mf__mount("./m/../a \\b\tc\nd'e///", &o, NULL, &m, &err), 0, "%s", err.text);
    cr_expect_str_eq(m.path, odd);
    cr_expect_eq(mf__mount(odd, &o, NULL, &(struct mf__mount){ 0 }, &err), -EBUSY, "%s", err.text);
    cr_expect_eq(mf__unmount(&m), 0);
    close(m.fd);
    cr_expect_eq(umount2(odd, MNT_DETACH), -1, "it is mounted still");
    mf__mount_release(&m);
    cr_assert_eq(chdir("/"), 0);
}

Test(mount, on_a_regular_file)
{
    struct mf__mount_opts o = options("rootmode=100000");
    struct mf__mount m;
    char file[100];

    snprintf(file, sizeof(file), "%s/f", dir);
    close(open(file, O_CREAT | O_WRONLY, 0644));
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(mf__mount(file, &o, NULL, &m, &err), 0, "%s", err.text);
        cr_expect_eq(mounts_at(file, NULL, 0), 1);
        cr_expect_eq(mf__unmount(&m), 0);
        cr_expect_eq(mounts_at(file, NULL, 0), 0);
        close(m.fd);
        mf__mount_release(&m);
        refuse(SYS_fsopen, ENOSYS);
    }
}

/* ---- SYNC_INIT ---------------------------------------------------------------------------------------- */

static bool has_sync_init(void)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), rc = ioctl(fd, _IO(229, 3));

    close(fd);
    return rc == 0;
}

Test(mount, sync_init_is_answered_before_mount_returns)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { 0 };
    struct mf__mount_hooks hooks = { .on_device = respond_on, .after = note_after, .user = &r };
    struct mf__mount m;

    if (!has_sync_init())
        cr_skip_test("needs a kernel with SYNC_INIT");
    cr_assert_eq(mf__mount(point, &o, &hooks, &m, &err), 0, "%s", err.text);
    cr_expect_eq(atomic_load(&r.inits), 1, "mounting did not wait for INIT's answer");
    cr_expect_eq(r.calls, 1);
    cr_expect_eq(r.after_rc, 0);
    cr_expect_eq(r.fd, m.fd);
    cr_expect_eq(look(point, m.fd), 0);
    end_served(&m, &r);
}

Test(mount, sync_init_refused_leaves_no_mount)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { .init_error = -EPROTO };
    struct mf__mount_hooks hooks = { .on_device = respond_on, .after = note_after, .user = &r };
    struct mf__mount m;
    int before = count_fds();

    if (!has_sync_init())
        cr_skip_test("needs a kernel with SYNC_INIT");
    cr_expect_lt(mf__mount(point, &o, &hooks, &m, &err), 0);
    cr_expect_not_null(strstr(err.text, "cannot mount at"), "%s", err.text);
    cr_expect_eq(m.fd, -1);
    cr_expect_null(m.path);
    cr_expect_eq(r.calls, 1);
    cr_expect_lt(r.after_rc, 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
    cr_expect_eq(count_fds(), before);
}

static int no_device(int fd, void *user)
{
    (void)fd, (void)user;
    return -EMFILE;
}

Test(mount, sync_init_without_a_reader_leaves_no_mount)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { 0 };
    struct mf__mount_hooks hooks = { .on_device = no_device, .after = note_after, .user = &r };
    struct mf__mount m;

    if (!has_sync_init())
        cr_skip_test("needs a kernel with SYNC_INIT");
    cr_expect_eq(mf__mount(point, &o, &hooks, &m, &err), -EMFILE);
    cr_expect_not_null(strstr(err.text, "starting to read the device: Too many open files"), "%s", err.text);
    cr_expect_eq(r.calls, 0, "`after` was called though on_device failed");
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

Test(mount, sync_init_ends_when_the_mount_fails_later)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { 0 };
    struct mf__mount_hooks hooks = { .on_device = respond_on, .after = note_after, .user = &r };
    struct mf__mount m;

    if (!has_sync_init())
        cr_skip_test("needs a kernel with SYNC_INIT");
    refuse(SYS_move_mount, ENOMEM);
    cr_expect_eq(mf__mount(point, &o, &hooks, &m, &err), -ENOMEM);
    cr_expect_not_null(strstr(err.text, "move_mount: Cannot allocate memory"), "%s", err.text);
    cr_expect_eq(atomic_load(&r.inits), 1);
    cr_expect_eq(r.calls, 1);
    cr_expect_eq(r.after_rc, -ENOMEM);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

Test(mount, hooks_are_left_alone_where_mount_2_mounts)
{
    struct mf__mount_opts o = options(NULL);
    struct responder r = { 0 };
    struct mf__mount_hooks hooks = { .on_device = respond_on, .after = note_after, .user = &r };
    struct mf__mount m;

    refuse(SYS_fsopen, ENOSYS);
    cr_assert_eq(mf__mount(point, &o, &hooks, &m, &err), 0, "%s", err.text);
    cr_expect_not(atomic_load(&r.ready));
    cr_expect_eq(r.calls, 0);
    cr_assert_eq(respond_on(m.fd, &r), 0);
    cr_expect_eq(look(point, m.fd), 0);
    end_served(&m, &r);
}

/* ---- unmounting ---------------------------------------------------------------------------------------- */

Test(mount, unmounted_twice_or_by_others_is_no_error)
{
    struct responder r;
    struct mf__mount m;

    cr_assert_eq(mount_served(NULL, &m, &r), 0, "%s", err.text);
    cr_expect_eq(mf__unmount(&m), 0);
    cr_expect_eq(mf__unmount(&m), 0);
    end_served(&m, &r);
    cr_expect_eq(mf__unmount(&m), 0, "a released one");

    cr_assert_eq(mount_served(NULL, &m, &r), 0, "%s", err.text);
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    end_served(&m, &r);

    cr_assert_eq(mount_served(NULL, &m, &r), 0, "%s", err.text);
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    cr_assert_eq(rmdir(point), 0);
    end_served(&m, &r);
    mkdir(point, 0755);
}

Test(mount, unmounting_leaves_a_successor_alone)
{
    struct responder r1, r2;
    struct mf__mount first, second;
    char line[1024];

    cr_assert_eq(mount_served("fsname=first", &first, &r1), 0, "%s", err.text);
    if (!first.unique_id)
        cr_skip_test("needs ids of mounts that are used once (Linux 6.8)");
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    cr_assert(over_within(&r1, 5000));
    cr_assert_eq(mount_served("fsname=second", &second, &r2), 0, "%s", err.text);
    /* Unless others mount at the same time, the second has the first one's device number and id: so it is hard. */
    cr_expect_neq(first.unique_id, second.unique_id);
    cr_expect_eq(mf__unmount(&first), 0);
    cr_assert_eq(mounts_at(point, line, sizeof(line)), 1, "the successor was unmounted");
    cr_expect_not_null(strstr(line, "second"));
    cr_expect_eq(look(point, second.fd), 0);
    end_responder(&r1);
    close(first.fd);
    mf__mount_release(&first);
    end_served(&second, &r2);
}

Test(mount, unmounting_leaves_what_covers_it_alone)
{
    struct responder r;
    struct mf__mount m;
    char line[1024];

    cr_assert_eq(mount_served(NULL, &m, &r), 0, "%s", err.text);
    cr_assert_eq(mount("cover", point, "tmpfs", 0, NULL), 0);
    cr_expect_eq(mf__unmount(&m), -EBUSY);
    cr_assert_eq(mounts_at(point, line, sizeof(line)), 2);
    cr_expect_not_null(strstr(line, " - tmpfs cover "), "%s", line);
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    end_served(&m, &r);
}

Test(mount, unmounting_a_dead_mount)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    cr_assert_eq(mf__mount(point, &o, NULL, &m, &err), 0, "%s", err.text);
    close(m.fd);
    cr_expect_eq(look(point, -1), ENOTCONN);
    cr_expect_eq(mf__unmount(&m), 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
    mf__mount_release(&m);
}

Test(mount, aborting_the_connection)
{
    struct responder r;
    struct mf__mount m;
    int rc;

    cr_assert_eq(mount_served(NULL, &m, &r), 0, "%s", err.text);
    cr_expect_eq(look(point, m.fd), 0);
    rc = mf__abort_connection(minor(m.dev));
    if (rc == -EACCES || rc == -EROFS)
        cr_skip_test("needs the control filesystem of FUSE, which is not permitted here");
    cr_expect_eq(rc, 0);
    cr_expect(over_within(&r, 5000), "the server was not woken");
    cr_expect_eq(look(point, m.fd), ENOTCONN);
    end_served(&m, &r);
    cr_expect_eq(mf__abort_connection(0), -EINVAL);
    cr_expect_eq(mf__abort_connection(1ull << 40), -EINVAL);
    cr_expect_eq(mf__abort_connection(99999999), -ENOENT);
}

/* ---- auto_unmount -------------------------------------------------------------------------------------- */

/* Processes of this name in the mount namespace of the test, zombies left out. */
static int processes_named(const char *name)
{
    DIR *d = opendir("/proc");
    struct stat here, there;
    struct dirent *e;
    int n = 0;

    while ((e = readdir(d))) {
        char path[300], text[256] = "", want[64];
        int fd;

        snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
            text[0] = '\0';
        if (fd >= 0)
            close(fd);
        snprintf(want, sizeof(want), "(%s) ", name);
        snprintf(path, sizeof(path), "/proc/%s/ns/mnt", e->d_name);
        n += strstr(text, want) && !strstr(text, ") Z") && stat("/proc/self/ns/mnt", &here) == 0 &&
             stat(path, &there) == 0 && here.st_ino == there.st_ino;
    }
    closedir(d);
    return n;
}

/* A child that mounts and serves, and does not end by itself. *m: as it sees it. */
static pid_t start_server(const char *text, struct mf__mount *m)
{
    struct shared {
        struct mf__mount m;
        atomic_int state;
    } *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();

    if (pid == 0) {
        struct responder r = { 0 };
        struct mf__mount_opts o = options(text);

        if (mf__mount(point, &o, NULL, &shared->m, &err))
            _exit(1);
        atomic_store(&shared->state, 1);
        r.fd = shared->m.fd;
        respond(&r);
        for (;;)
            pause();
    }
    for (int ms = 0; !atomic_load(&shared->state) && ms < 20000; ms += 5)
        pause_ms(5);
    cr_assert_eq(atomic_load(&shared->state), 1, "the server did not start");
    *m = shared->m;
    munmap(shared, sizeof(*shared));
    return pid;
}

static void kill_server(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

Test(mount, auto_unmount_when_the_server_is_killed)
{
    struct mf__mount m;
    pid_t pid = start_server("auto_unmount", &m);

    cr_expect_eq(mounts_at(point, NULL, 0), 1);
    cr_expect_eq(look(point, -1), 0);
    kill_server(pid);
    cr_expect(gone_within(point, 5000), "the mount outlives its server");
}

Test(mount, without_auto_unmount_the_mount_stays)
{
    struct mf__mount m;
    pid_t pid = start_server(NULL, &m);

    kill_server(pid);
    pause_ms(200);
    cr_expect_eq(mounts_at(point, NULL, 0), 1);
    cr_expect_eq(look(point, -1), ENOTCONN);
}

Test(mount, auto_unmount_leaves_a_successor_alone)
{
    struct responder r;
    struct mf__mount first, second;
    pid_t pid = start_server("auto_unmount,fsname=first", &first);

    if (!first.unique_id)
        cr_skip_test("needs ids of mounts that are used once (Linux 6.8)");
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    cr_assert_eq(mount_served("fsname=second", &second, &r), 0, "%s", err.text);
    kill_server(pid);
    pause_ms(300);
    cr_expect_eq(mounts_at(point, NULL, 0), 1, "the successor was unmounted");
    end_served(&second, &r);
}

Test(mount, auto_unmount_ends_with_the_mount)
{
    struct mf__mount_opts o = options("auto_unmount");
    struct responder r = { 0 };
    struct mf__mount m;
    int before = count_fds();

    cr_assert_eq(mf__mount(point, &o, NULL, &m, &err), 0, "%s", err.text);
    cr_assert_eq(respond_on(m.fd, &r), 0);
    cr_expect_geq(m.helper_sock, 0);
    cr_expect(fcntl(m.helper_sock, F_GETFD) & FD_CLOEXEC);
    cr_expect_eq(waitpid(-1, NULL, WNOHANG), -1, "the watcher is our child");
    cr_expect_eq(processes_named("mf-auto-unmount"), 1);
    end_served(&m, &r);
    for (int ms = 0; processes_named("mf-auto-unmount") && ms < 5000; ms += 10)
        pause_ms(10);
    cr_expect_eq(processes_named("mf-auto-unmount"), 0, "the watcher does not end");
    cr_expect_eq(count_fds(), before);
}

/* The watcher holds neither the device nor anything else of the server's. */
Test(mount, auto_unmount_keeps_no_descriptors)
{
    struct mf__mount_opts o = options("auto_unmount");
    struct mf__mount m;
    char c;
    int p[2];

    cr_assert_eq(pipe(p), 0); /* not close-on-exec */
    cr_assert_eq(mf__mount(point, &o, NULL, &m, &err), 0, "%s", err.text);
    close(p[1]);
    cr_assert_eq(fcntl(p[0], F_SETFL, O_NONBLOCK), 0);
    cr_expect_eq(read(p[0], &c, 1), 0, "the watcher keeps a descriptor open");
    close(p[0]);
    close(m.fd);
    cr_expect_eq(look(point, -1), ENOTCONN, "the watcher keeps the connection alive");
    /* Closing the socket is what it waits for. */
    mf__mount_release(&m);
    cr_expect(gone_within(point, 5000));
}

/* ---- as a user, through fusermount3 --------------------------------------------------------------------- */

/* In the namespace of the test, everybody may open the device, as on most systems. */
static void open_device_to_all(void)
{
    char node[100];

    snprintf(node, sizeof(node), "%s/fuse", dir);
    cr_assert_eq(mount("node", dir, "tmpfs", 0, "mode=755"), 0);
    cr_assert_eq(mkdir(point, 0755), 0);
    cr_assert_eq(mknod(node, S_IFCHR | 0666, makedev(10, 229)), 0);
    cr_assert_eq(chmod(node, 0666), 0);
    cr_assert_eq(mount(node, "/dev/fuse", NULL, MS_BIND, NULL), 0);
}

static void become_nobody(void)
{
    if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
        _exit(99);
}

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, err.text); \
            return __LINE__;                                                       \
        }                                                                          \
    } while (0)

/* Run a function as an unprivileged user: 0, or the line of the CHECK that failed. */
static int as_nobody(int (*function)(void))
{
    int *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int rc;
    pid_t pid;

    *result = -1;
    pid = fork();
    if (pid == 0) {
        become_nobody();
        *result = function();
        _exit(0);
    }
    rc = wait_child(pid, 40000);
    rc = rc ? rc : *result;
    munmap(result, sizeof(*result));
    return rc;
}

static void need_fusermount(void)
{
    struct stat st;

    if (stat("/usr/bin/fusermount3", &st) < 0 || !(st.st_mode & S_ISUID))
        cr_skip_test("needs /usr/bin/fusermount3 with its set-user-ID bit (package fuse3)");
    if (access("/etc/mtab", R_OK) < 0)
        cr_skip_test("needs /etc/mtab, for fusermount3 unmounts nothing without (ln -s ../proc/self/mounts /etc/mtab)");
}

/*
 * In a forked child, where ThreadSanitizer follows no threads: look() at the mount and be its server meanwhile.
 * -1 as well where the mount has ended: then nobody can look.
 */
static int look_and_serve(struct mf__mount *m)
{
    struct responder r = { .fd = m->fd };
    union {
        struct fuse_in_header head;
        char bytes[16384];
    } in;
    struct stat st;
    int status = 0, ms = 10000;
    pid_t pid = fork();

    if (pid == 0) {
        close(m->fd);
        _exit(stat(m->path, &st) < 0 ? errno : 0);
    }
    for (; waitpid(pid, &status, WNOHANG) == 0 && ms > 0; ms -= 5) {
        struct pollfd p = { .fd = m->fd, .events = POLLIN };

        if (poll(&p, 1, 5) > 0 && read(m->fd, &in, sizeof(in)) > 0)
            answer_one(&r, &in.head);
    }
    return ms > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The mount has ended: no request can come any more. */
static bool ended(int fd)
{
    char bytes[16384];
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, 5000) == 1 && (p.revents & POLLERR) && read(fd, bytes, sizeof(bytes)) < 0 && errno == ENODEV;
}

static int user_mounts(void)
{
    struct mf__mount_opts o = options("fsname=a\\,b\\\\ c,subtype=probe,max_read=8192,noexec,ro");
    char line[1024];
    struct mf__mount m;
    int before = count_fds();

    CHECK(mf__mount(point, &o, NULL, &m, &err) == 0);
    CHECK(m.by_helper && m.helper_sock == -1);
    CHECK(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
    CHECK(mounts_at(point, line, sizeof(line)) == 1);
    CHECK(strstr(line, " - fuse.probe a,b\\134\\040c ro,user_id=65534,group_id=65534"));
    CHECK(strstr(line, "max_read=8192") && strstr(line, " ro,nosuid,nodev,noexec,"));
    CHECK(strtoull(line, NULL, 10) == m.mount_id && m.dev);
    CHECK(look_and_serve(&m) == 0);
    CHECK(mf__unmount(&m) == 0);
    CHECK(mounts_at(point, NULL, 0) == 0);
    CHECK(ended(m.fd));
    close(m.fd);
    mf__mount_release(&m);
    CHECK(count_fds() == before);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    return 0;
}

Test(mount, by_fusermount3_as_a_user)
{
    need_fusermount();
    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    cr_expect_eq(as_nobody(user_mounts), 0);
}

/* Then nobody keeps the helper's exit status, and it may not be taken for somebody else's. */
static int user_ignores_children(void)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    signal(SIGCHLD, SIG_IGN);
    CHECK(mf__mount(point, &o, NULL, &m, &err) == 0);
    CHECK(mounts_at(point, NULL, 0) == 1);
    CHECK(mf__unmount(&m) == 0);
    CHECK(mounts_at(point, NULL, 0) == 0);
    close(m.fd);
    mf__mount_release(&m);
    return 0;
}

Test(mount, by_fusermount3_where_sigchld_is_ignored)
{
    need_fusermount();
    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    cr_expect_eq(as_nobody(user_ignores_children), 0);
}

static int user_auto_unmounts(void)
{
    struct mf__mount_opts o = options("auto_unmount");
    struct mf__mount m;

    CHECK(mf__mount(point, &o, NULL, &m, &err) == 0);
    CHECK(m.by_helper && m.helper_sock >= 0);
    CHECK(fcntl(m.helper_sock, F_GETFD) & FD_CLOEXEC);
    CHECK(look_and_serve(&m) == 0);
    CHECK(mf__unmount(&m) == 0);
    CHECK(mounts_at(point, NULL, 0) == 0);
    CHECK(ended(m.fd));
    close(m.fd);
    mf__mount_release(&m);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD); /* no zombie is left */
    /* And once more, to be killed. */
    CHECK(mf__mount(point, &o, NULL, &m, &err) == 0);
    return 0;
}

Test(mount, by_fusermount3_auto_unmount)
{
    need_fusermount();
    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    cr_expect_eq(as_nobody(user_auto_unmounts), 0);
    cr_expect(gone_within(point, 5000), "the mount outlives its server");
}

static int user_lacks_mount_point(void)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    CHECK(mf__mount(point, &o, NULL, &m, &err) == -EACCES);
    CHECK(strstr(err.text, "fusermount3 refused: user has no write access to mountpoint"));
    CHECK(strstr(err.text, "Operation not permitted"));
    CHECK(m.fd == -1 && !m.path);
    return 0;
}

Test(mount, fusermount3_refuses_a_foreign_mount_point)
{
    need_fusermount();
    open_device_to_all();
    cr_expect_eq(as_nobody(user_lacks_mount_point), 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

static int user_lacks_device(void)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    CHECK(mf__mount(point, &o, NULL, &m, &err) == -EPERM);
    CHECK(strstr(err.text, "opening /dev/fuse: Permission denied"));
    return 0;
}

Test(mount, fusermount3_refuses_without_the_device)
{
    need_fusermount();
    open_device_to_all();
    cr_assert_eq(chmod("/dev/fuse", 0600), 0);
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    cr_expect_eq(as_nobody(user_lacks_device), 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

static int user_may_not_allow_others(void)
{
    struct mf__mount_opts o = options("allow_other");
    struct mf__mount m;

    CHECK(mf__mount(point, &o, NULL, &m, &err) == -EPERM);
    CHECK(strstr(err.text, "user_allow_other"));
    return 0;
}

Test(mount, fusermount3_refuses_what_the_administrator_does_not_allow)
{
    char empty[100];

    need_fusermount();
    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    snprintf(empty, sizeof(empty), "%s/conf", dir);
    close(open(empty, O_CREAT | O_WRONLY, 0644));
    if (access("/etc/fuse.conf", F_OK) == 0)
        cr_assert_eq(mount(empty, "/etc/fuse.conf", NULL, MS_BIND, NULL), 0);
    cr_expect_eq(as_nobody(user_may_not_allow_others), 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

/* ---- helpers that misbehave ------------------------------------------------------------------------------ */

/* Puts a fusermount3 that does this first in the search path. */
static void fake_helper(const char *script)
{
    char path[120];
    FILE *f;

    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    snprintf(path, sizeof(path), "%s/bin", dir);
    cr_assert_eq(mkdir(path, 0755), 0);
    setenv("PATH", path, 1);
    strcat(path, "/fusermount3");
    f = fopen(path, "w");
    cr_assert_not_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", script);
    fclose(f);
    cr_assert_eq(chmod(path, 0755), 0);
}

static int try_rc, try_fds;

static int user_tries(void)
{
    struct mf__mount_opts o = options("auto_unmount");
    struct mf__mount m;

    try_fds = count_fds();
    try_rc = mf__mount(point, &o, NULL, &m, &err);
    CHECK(try_rc < 0 && m.fd == -1 && m.helper_sock == -1);
    CHECK(count_fds() == try_fds);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    return 0;
}

static int user_sees_a_hang(void)
{
    mf__helper_mount_ms = 300;
    CHECK(user_tries() == 0);
    CHECK(try_rc == -ETIMEDOUT && strstr(err.text, "did not answer"));
    return 0;
}

Test(mount, helper_that_hangs_is_killed)
{
    fake_helper("exec /bin/sleep 1000");
    cr_expect_eq(as_nobody(user_sees_a_hang), 0);
}

static int user_sees_words(void)
{
    CHECK(user_tries() == 0);
    CHECK(try_rc == -EPERM && strstr(err.text, "fusermount3 refused: first line second line (it was asked because"));
    return 0;
}

Test(mount, helper_that_complains_is_quoted)
{
    fake_helper("echo fusermount3: first line >&2; echo second line >&2; exit 1");
    cr_expect_eq(as_nobody(user_sees_words), 0);
}

static int user_sees_much(void)
{
    CHECK(user_tries() == 0);
    CHECK(try_rc == -EPERM && strstr(err.text, "fusermount3 refused: xxxxxxxx"));
    return 0;
}

Test(mount, helper_that_says_too_much_is_cut)
{
    fake_helper(
        "i=0; while [ $i -lt 20000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&2; i=$((i+1)); done; exit 1");
    cr_expect_eq(as_nobody(user_sees_much), 0);
}

static int user_sees_nothing(void)
{
    CHECK(user_tries() == 0);
    CHECK(try_rc == -EPERM && strstr(err.text, "fusermount3 refused: it does not say why"));
    return 0;
}

Test(mount, helper_that_says_nothing)
{
    fake_helper("exit 0");
    cr_expect_eq(as_nobody(user_sees_nothing), 0);
}

static int user_sees_garbage(void)
{
    CHECK(user_tries() == 0);
    CHECK(try_rc == -EPROTO);
    return 0;
}

Test(mount, helper_that_sends_no_descriptor)
{
    fake_helper("printf x >&3; exit 0");
    cr_expect_eq(as_nobody(user_sees_garbage), 0);
}

static int user_leaks_nothing(void)
{
    int fd = open("/dev/null", O_RDONLY); /* not close-on-exec */

    CHECK(fcntl(fd, F_DUPFD, 50) == 50);
    CHECK(user_tries() == 0);
    CHECK(strstr(err.text, "refused: 0 1 2 3 comm=3"));
    return 0;
}

Test(mount, helper_inherits_nothing_else)
{
    fake_helper("cd /proc/self/fd; for i in 0 1 2 3 4 5 6 7 8 9 50; do [ -e $i ] && l=\"$l$i \"; done; l=${l%10 };"
                " echo \"${l}comm=$_FUSE_COMMFD\" >&2; exit 1");
    setenv("_FUSE_COMMFD", "77", 1);
    cr_expect_eq(as_nobody(user_leaks_nothing), 0);
}

static int user_finds_no_helper(void)
{
    CHECK(user_tries() == 0);
    CHECK(try_rc == -EPERM);
    CHECK(strstr(err.text, "not permitted directly (fsopen: Operation not permitted)"));
    CHECK(strstr(err.text, "there is no fusermount3 to do it: run as root or install the fuse3 package"));
    return 0;
}

Test(mount, no_fusermount3_names_both_ways_out)
{
    static const char *const places[] = { "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin" };
    char path[100];

    open_device_to_all();
    cr_assert_eq(chown(point, NOBODY, NOBODY), 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(places); i++) {
        snprintf(path, sizeof(path), "%s/fusermount3", places[i]);
        if (access(path, X_OK) == 0)
            cr_assert_eq(mount("/dev/null", path, NULL, MS_BIND, NULL), 0);
    }
    setenv("PATH", ":relative:/nowhere", 1);
    cr_expect_eq(as_nobody(user_finds_no_helper), 0);
    unsetenv("PATH");
    cr_expect_eq(as_nobody(user_finds_no_helper), 0);
    setenv("PATH", "/usr/bin:/bin", 1);
}

/* ---- mount points and devices that will not do ------------------------------------------------------------ */

static void expect_failure(const char *mountpoint, const char *text, int code, const char *words)
{
    struct mf__mount_opts o = options(text);
    struct mf__mount m;
    int before = count_fds(), rc;

    err = (struct mf_error){ .size = sizeof(err) };
    rc = mf__mount(mountpoint, &o, NULL, &m, &err);
    cr_expect_eq(rc, code, "'%s': %d %s", mountpoint ? mountpoint : "(null)", rc, err.text);
    cr_expect_eq(err.code, code);
    cr_expect_not_null(strstr(err.text, words), "\"%s\" lacks \"%s\"", err.text, words);
    cr_expect(m.fd == -1 && m.helper_sock == -1 && !m.path);
    cr_expect_eq(mf__mount(mountpoint, &o, NULL, &m, NULL), code);
    cr_expect_eq(count_fds(), before, "descriptors are left after: %s", err.text);
    cr_expect_eq(mf__unmount(&m), 0);
    mf__mount_release(&m);
}

Test(mount, mount_points_that_will_not_do)
{
    char path[200], looped[100];

    expect_failure(NULL, NULL, -EINVAL, "no mount point was given");
    expect_failure("", NULL, -EINVAL, "no mount point was given");
    snprintf(path, sizeof(path), "%s/missing", dir);
    expect_failure(path, NULL, -ENOENT, "/missing' does not exist: make it first (mkdir)");
    snprintf(path, sizeof(path), "%s/f", dir);
    close(open(path, O_CREAT | O_WRONLY, 0644));
    expect_failure(path, NULL, -ENOTDIR, "/f' is not a directory (for a filesystem whose root is a file: -o rootmode=");
    strcat(path, "/below");
    expect_failure(path, NULL, -ENOTDIR, "/f/below': a part of the path is not a directory");
    expect_failure("/dev/null", NULL, -ENOTDIR, "'/dev/null' is not a directory");
    expect_failure("/dev/null", "rootmode=100000", -EINVAL, "'/dev/null' is not a regular file");
    expect_failure(point, "rootmode=100000", -EISDIR, "is not a regular file, but the option rootmode=100000 says");
    expect_failure(point, "blksize=512", -EINVAL, "'blksize' is for filesystems on block devices (fuseblk) only");
    snprintf(looped, sizeof(looped), "%s/loop", dir);
    cr_assert_eq(symlink("loop", looped), 0);
    expect_failure(looped, NULL, -ELOOP, "/loop': Too many levels of symbolic links");
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

static int user_cannot_get_there(void)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    CHECK(mf__mount(point, &o, NULL, &m, &err) == -EACCES);
    CHECK(strstr(err.text, "': no permission to reach it"));
    return 0;
}

Test(mount, mount_point_out_of_reach)
{
    cr_assert_eq(chmod(dir, 0700), 0);
    cr_expect_eq(as_nobody(user_cannot_get_there), 0);
}

Test(mount, a_mount_of_fuse_is_not_covered)
{
    struct mf__mount_opts o = options("fsname=old,subtype=probe");
    struct mf__mount m;
    char below[120];

    cr_assert_eq(mf__mount(point, &o, NULL, &m, &err), 0, "%s", err.text);
    expect_failure(point, NULL, -EBUSY, "is a FUSE mount already (old of type fuse.probe");
    close(m.fd);
    expect_failure(point, NULL, -EBUSY, "unmount it first: fusermount3 -u '");
    snprintf(below, sizeof(below), "%s/below", point);
    expect_failure(below, NULL, -ENOTCONN, "is on a FUSE mount whose server is gone; unmount it first: fusermount3 -u");
    cr_expect_eq(mounts_at(point, NULL, 0), 1);
    cr_expect_eq(mf__unmount(&m), 0);
    mf__mount_release(&m);
}

Test(mount, no_device)
{
    cr_assert_eq(mount("none", "/dev", "tmpfs", 0, NULL), 0);
    expect_failure(point, NULL, -ENODEV, "there is no /dev/fuse: load the fuse module (modprobe fuse)");
    cr_expect_eq(umount2("/dev", MNT_DETACH), 0);
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

Test(mount, no_driver)
{
    char node[100];

    snprintf(node, sizeof(node), "%s/node", dir);
    cr_assert_eq(mount("node", dir, "tmpfs", 0, "mode=755"), 0);
    cr_assert_eq(mkdir(point, 0755), 0);
    cr_assert_eq(mknod(node, S_IFCHR | 0666, makedev(10, 254)), 0);
    cr_assert_eq(mount(node, "/dev/fuse", NULL, MS_BIND, NULL), 0);
    expect_failure(point, NULL, -ENODEV, "/dev/fuse has no driver: load the fuse module");
}

static int stranger_mounts(void)
{
    struct mf__mount_opts o = options(NULL);
    struct mf__mount m;

    /* All privileges, but a user id that means nothing to the kernel. */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return 98;
    CHECK(mf__mount(point, &o, NULL, &m, &err) == -EINVAL);
    CHECK(strstr(err.text, "user_id: Invalid argument (fuse: "));
    return 0;
}

Test(mount, the_kernels_own_words_are_passed_on)
{
    int rc;

    open_device_to_all();
    rc = as_nobody(stranger_mounts);
    if (rc == 98)
        cr_skip_test("needs user namespaces, which are not permitted here");
    cr_expect_eq(rc, 0, "line %d", rc);
}

Test(mount, each_step_that_fails_is_named)
{
    refuse(SYS_fsmount, EDOM);
    expect_failure(point, NULL, -EDOM, "fsmount: Numerical argument out of domain");
    refuse(SYS_fsconfig, EMFILE);
    expect_failure(point, NULL, -EMFILE, "source: Too many open files");
    refuse(SYS_fsopen, ENODEV);
    expect_failure(point, NULL, -ENODEV, "this kernel has no FUSE: load the fuse module (modprobe fuse)");
    refuse(SYS_fsopen, ENOSYS);
    refuse(SYS_mount, ENOMEM);
    expect_failure(point, NULL, -ENOMEM, "mount: Cannot allocate memory");
    cr_expect_eq(mounts_at(point, NULL, 0), 0);
}

/* ---- whole programs: mf_main() --------------------------------------------------------------------------- */

#ifdef MF_TEST_EXAMPLES_DIR

static const char program[] = MF_TEST_EXAMPLES_DIR "/hello";

static pid_t start_program(const char *option)
{
    pid_t pid = fork();

    if (pid == 0) {
        execl(program, "hello", point, "-o", option, NULL);
        _exit(127);
    }
    return pid;
}

/* Exit status, or 1000 + the signal that ended it; -1 = it did not end and was killed. */
static int end_of(pid_t pid, int ms)
{
    int status;

    for (; waitpid(pid, &status, WNOHANG) == 0; ms -= 1) {
        if (ms <= 0) {
            kill_server(pid);
            return -1;
        }
        pause_ms(1);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/*
 * ThreadSanitizer's runtime loses a signal that comes while it makes its own record of the main thread: once in a
 * thousand starts no handler of the program's is called. There it is sent again.
 */
#ifdef __SANITIZE_THREAD__
#define SIGNALS 10
#else
#define SIGNALS 1
#endif

static int ended_by(pid_t pid, int sig, int ms)
{
    siginfo_t info = { 0 };

    for (int i = 0; i < SIGNALS && info.si_pid == 0; i++) {
        kill(pid, sig);
        for (int left = ms / SIGNALS; left > 0 && info.si_pid == 0; left--) {
            pause_ms(1);
            waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
        }
    }
    return end_of(pid, 0);
}

static bool mounted_within(int ms)
{
    for (; !mounts_at(point, NULL, 0) && ms > 0; ms -= 5)
        pause_ms(5);
    return mounts_at(point, NULL, 0) == 1;
}

static void need_program(void)
{
    if (access(program, X_OK) < 0)
        cr_skip_test("needs the example program hello, which is not built");
}

Test(mount, program_ends_cleanly_by_each_signal)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

    need_program();
    for (size_t i = 0; i < MF__ARRAY_SIZE(signals); i++) {
        pid_t pid = start_program("ro");

        cr_assert(mounted_within(10000), "no mount");
        cr_expect_eq(look(point, -1), 0);
        cr_expect_eq(ended_by(pid, signals[i], 10000), 0, "signal %d", signals[i]);
        cr_expect_eq(mounts_at(point, NULL, 0), 0, "signal %d leaves the mount", signals[i]);
    }
}

Test(mount, program_ends_cleanly_when_it_is_unmounted)
{
    pid_t pid;

    need_program();
    pid = start_program("auto_unmount");
    cr_assert(mounted_within(10000), "no mount");
    cr_expect_eq(look(point, -1), 0);
    cr_assert_eq(umount2(point, MNT_DETACH), 0);
    cr_expect_eq(end_of(pid, 10000), 0);
}

/* At whatever moment the signal comes, no mount is left. */
Test(mount, program_leaves_no_mount_when_a_signal_comes_early)
{
    need_program();
    for (int i = 0; i < 60; i++) {
        pid_t pid = start_program("ro");
        int status;

        for (int spin = 0; spin < i; spin++)
            sched_yield();
        pause_ms(i / 4);
        status = ended_by(pid, SIGTERM, 15000);
        cr_expect(status == 0 || status == 1000 + SIGTERM, "round %d: status %d", i, status);
        cr_assert_eq(mounts_at(point, NULL, 0), 0, "round %d leaves a mount", i);
    }
}

Test(mount, program_is_not_started_twice)
{
    pid_t first, second;

    need_program();
    first = start_program("ro");
    cr_assert(mounted_within(10000), "no mount");
    second = start_program("ro");
    cr_expect_eq(end_of(second, 10000), 1);
    cr_expect_eq(mounts_at(point, NULL, 0), 1);
    cr_expect_eq(look(point, -1), 0);
    cr_expect_eq(ended_by(first, SIGTERM, 10000), 0);
}

Test(mount, program_that_is_killed_is_unmounted)
{
    pid_t pid;

    need_program();
    pid = start_program("auto_unmount");
    cr_assert(mounted_within(10000), "no mount");
    kill_server(pid);
    cr_expect(gone_within(point, 5000), "the mount outlives the program");
}

#endif
