/* SPDX-License-Identifier: MIT */
#include "mount_site.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define CHILD_SECONDS 40
#define WAIT_MS 30000

char site_point[80];

/* ---- the place ------------------------------------------------------------------------------------------ */

void site_begin(void)
{
    char dir[64] = "/tmp/manifuse-session-XXXXXX";

    if (geteuid() != 0)
        cr_skip_test("needs root, for a mount namespace of its own");
    if (access("/dev/fuse", F_OK) < 0)
        cr_skip_test("needs /dev/fuse, which is missing here");
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        cr_skip_test("needs a mount namespace of its own, which is not permitted here");
    /* In memory, in this namespace: nothing is left of it afterwards. */
    cr_assert_eq(mount("none", "/mnt", "tmpfs", 0, NULL), 0, "/mnt: %s", strerror(errno));
    memcpy(dir, "/mnt", 5);
    cr_assert_eq(chmod(dir, 0755), 0);
    snprintf(site_point, sizeof(site_point), "%s/point", dir);
    cr_assert_eq(mkdir(site_point, 0755), 0);
}

bool site_mounted(void)
{
    char line[1024], want[96];
    bool found = false;
    FILE *f = fopen("/proc/self/mountinfo", "re");

    snprintf(want, sizeof(want), " %s ", site_point);
    while (f && fgets(line, sizeof(line), f))
        found = found || strstr(line, want);
    if (f)
        fclose(f);
    return found;
}

bool site_gone(void)
{
    for (int i = 0; i < 1000 && site_mounted(); i++)
        usleep(10000);
    return !site_mounted();
}

/* Without opendir(3): in a child of a process with threads malloc may wait for ever, and AddressSanitizer's does. */
unsigned site_count(const char *path)
{
    _Alignas(struct dirent64) char buf[8192];
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    unsigned n = 0;
    ssize_t got;

    while (fd >= 0 && (got = getdents64(fd, buf, sizeof(buf))) > 0) {
        for (ssize_t at = 0; at < got; at += ((struct dirent64 *)(void *)(buf + at))->d_reclen)
            n++;
    }
    if (fd >= 0)
        close(fd);
    return n;
}

/* ---- processes -------------------------------------------------------------------------------------------- */

pid_t site_start_as(uint32_t uid, site_fn fn, void *arg)
{
    pid_t parent = getpid();
    pid_t pid = fork();

    cr_assert(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(99);
    alarm(CHILD_SECONDS);
    if (uid != 0 && (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
        _exit(98);
    if (uid != 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user clears it */
    _exit(fn(arg) & 0xff);
}

pid_t site_start(site_fn fn, void *arg)
{
    return site_start_as(0, fn, arg);
}

int site_end(pid_t pid)
{
    int status = 0;
    pid_t rc = 0;

    for (int ms = 0; ms < WAIT_MS && rc == 0; ms += 5) {
        rc = waitpid(pid, &status, WNOHANG);
        if (rc == 0)
            usleep(5000);
    }
    if (rc == 0) {
        kill(pid, SIGKILL);
        return SITE_HUNG;
    }
    return WIFSIGNALED(status) ? SITE_KILLED + WTERMSIG(status) : WEXITSTATUS(status);
}

int site_run_as(uint32_t uid, site_fn fn, void *arg)
{
    return site_end(site_start_as(uid, fn, arg));
}

int site_run(site_fn fn, void *arg)
{
    return site_run_as(0, fn, arg);
}

/* ---- what children do ---------------------------------------------------------------------------------------- */

int site_stat_root(void *arg)
{
    struct stat st;

    (void)arg;
    return stat(site_point, &st) < 0 ? errno : 0;
}

int site_read_gate(void *arg)
{
    uint8_t buf[FS_GATE_SIZE];
    char path[128];
    ssize_t n;
    int fd;

    (void)arg;
    snprintf(path, sizeof(path), "%s/gate", site_point);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return errno;
    n = read(fd, buf, sizeof(buf));
    if (n < 0)
        return errno;
    return n == sizeof(buf) && fs_right(FS_GATE, 0, buf, sizeof(buf)) ? 0 : EBADMSG;
}

void site_path(uint64_t node, char path[SITE_PATH])
{
    char name[16];

    fs_name(node, name);
    snprintf(path, SITE_PATH, "%s/%s", site_point, name);
}

static int check_file(uint64_t node)
{
    static uint8_t buf[65536];
    uint64_t at = 0;
    char path[SITE_PATH];
    struct stat st;
    ssize_t n;
    int fd, rc = 0;

    site_path(node, path);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return errno;
    if (fstat(fd, &st) < 0)
        rc = errno;
    else if ((uint64_t)st.st_size != fs_size(node))
        rc = EBADMSG;
    while (rc == 0 && (n = read(fd, buf, sizeof(buf))) != 0) {
        if (n < 0)
            rc = errno;
        else if (!fs_right(node, at, buf, (uint64_t)n))
            rc = EBADMSG;
        at += n > 0 ? (uint64_t)n : 0;
    }
    close(fd);
    if (rc == 0 && at != fs_size(node))
        rc = EBADMSG;
    return rc;
}

int site_walk(void *arg)
{
    int times = arg ? *(int *)arg : 1;

    for (int i = 0; i < times; i++) {
        if (site_count(site_point) != FS_FILES + 2)
            return ENODATA;
        for (uint64_t node = FS_FILE0; node < FS_FILE0 + FS_FILES; node++) {
            int rc = check_file(node);

            if (rc)
                return rc;
        }
    }
    return 0;
}

/* The errors with which a mount may end under a program's hands. */
static bool is_end(int error)
{
    return error == ENOTCONN || error == ECONNABORTED || error == ENOENT || error == ENODEV || error == EINTR;
}

int site_load(void *arg)
{
    unsigned seed = (unsigned)getpid();

    (void)arg;
    for (unsigned i = 0;; i++) {
        int rc = check_file(FS_FILE0 + (seed + i * 7) % FS_FILES);

        if (rc)
            return is_end(rc) ? 0 : rc;
    }
}

int site_read_on(void *arg)
{
    static _Alignas(4096) uint8_t buf[4096];
    char path[SITE_PATH];
    int fd, rc;

    (void)arg;
    site_path(FS_FILE0, path);
    fd = open(path, O_RDONLY | O_DIRECT);
    while (fd >= 0 && pread(fd, buf, sizeof(buf), 0) >= 0)
        continue;
    rc = errno;
    if (fd >= 0)
        close(fd);
    return is_end(rc) ? 0 : rc;
}

void site_needs_threads_in_children(void)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("ThreadSanitizer does not let the child of a program with threads have threads");
#endif
}

/* ---- servers --------------------------------------------------------------------------------------------------- */

void site_serve(struct fs_rig *rig)
{
    struct mf_error err = { .size = sizeof(err) };

    fs_make(rig);
    cr_assert_eq(mf_session_mount(rig->s, site_point, &err), 0, "%s", err.text);
    fs_run(rig);
}

struct server {
    const struct mf_session_opts *opts;
    fs_script script;
    int ready;
};

static int server_main(void *arg)
{
    struct fs_rig *rig = calloc(1, sizeof(*rig));
    struct server *v = arg;
    struct mf_error err = { .size = sizeof(err) };
    uint32_t flags = v->opts->flags;
    int rc;

    fs_init(rig);
    rig->opts.readers = v->opts->readers;
    rig->opts.clone_fd = v->opts->clone_fd;
    rig->opts.uring = v->opts->uring;
    rig->opts.acl = v->opts->acl;
    rig->opts.stop_timeout_ms = v->opts->stop_timeout_ms;
    rig->opts.mount_options = v->opts->mount_options;
    rig->opts.flags = flags;
    rig->script = v->script;
    fs_make(rig);
    rc = mf_session_mount(rig->s, site_point, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    if (rc < 0 || write(v->ready, "", 1) != 1)
        return 97;
    rc = -mf_session_run(rig->s);
    mf_session_free(rig->s);
    return rc;
}

pid_t site_server(const struct mf_session_opts *opts, fs_script script)
{
    struct server v = { .opts = opts, .script = script };
    int sv[2];
    char c;
    pid_t pid;

    site_needs_threads_in_children();
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    v.ready = sv[1];
    pid = site_start(server_main, &v);
    close(sv[1]);
    cr_assert_eq(read(sv[0], &c, 1), 1, "the server could not mount");
    close(sv[0]);
    return pid;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

void site_send_fds(int sock, const int *fds, uint32_t n, const void *data, size_t len)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
    } control = { .bytes = { 0 } };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
    struct cmsghdr *c;

    msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
    c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    cr_assert_eq(sendmsg(sock, &msg, 0), (ssize_t)len);
}

/* In a child: its status tells what went wrong. */
void site_receive_fds(int sock, int *fds, uint32_t n, void *data, size_t len)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
    } control;
    struct iovec iov = { .iov_base = data, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
    struct cmsghdr *c;

    msg.msg_controllen = sizeof(control);
    if (recvmsg(sock, &msg, 0) != (ssize_t)len)
        _exit(96);
    c = CMSG_FIRSTHDR(&msg);
    if (!c || c->cmsg_len != CMSG_LEN(sizeof(int) * n))
        _exit(95);
    memcpy(fds, CMSG_DATA(c), sizeof(int) * n);
}

int site_mount_elsewhere(const char *options)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char data[256];

    cr_assert_geq(fd, 0);
    snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=0,group_id=0%s%s", fd, options[0] ? "," : "", options);
    cr_assert_eq(mount("elsewhere", site_point, "fuse.elsewhere", 0, data), 0, "%s", strerror(errno));
    return fd;
}

int site_clone(int fd)
{
    uint32_t master = (uint32_t)fd;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    cr_assert_geq(clone, 0);
    cr_assert_eq(ioctl(clone, FUSE_DEV_IOC_CLONE, &master), 0, "%s", strerror(errno));
    return clone;
}

uint64_t site_connection(int fd)
{
    return mf__connection_number(fd);
}

int site_abort(uint64_t connection)
{
    char path[96];
    int fd, rc;

    snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%llu/abort", (unsigned long long)connection);
    if (access(path, F_OK) < 0)
        (void)mount("none", "/sys/fs/fuse/connections", "fusectl", 0, NULL);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    rc = write(fd, "1", 1) == 1 ? 0 : -errno;
    close(fd);
    return rc;
}
