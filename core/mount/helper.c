/* SPDX-License-Identifier: MIT */
/* helper.c - fusermount3: it is installed setuid root, and mounts and unmounts for those who may not. */
#include "mount/internal.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELPER "fusermount3"
#define UNMOUNT_MS 10000

/* Searched after $PATH, which a service may lack. */
#define USUAL_DIRS "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

int mf__helper_mount_ms = 30000;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool find_in(const char *dirs, char *out, size_t size)
{
    struct stat st;

    for (size_t n; dirs; dirs = dirs[n] ? dirs + n + 1 : NULL) {
        n = strcspn(dirs, ":");
        /* Not in the working directory, be it named by "." or by nothing. */
        if (dirs[0] == '/' && (size_t)snprintf(out, size, "%.*s/%s", (int)n, dirs, HELPER) < size &&
            stat(out, &st) == 0 && S_ISREG(st.st_mode) && access(out, X_OK) == 0)
            return true;
    }
    return false;
}

bool mf__helper_find(char *out, size_t size)
{
    return find_in(secure_getenv("PATH"), out, size) || find_in(USUAL_DIRS, out, size);
}

/* ---- running it ------------------------------------------------------------------------------------ */

struct helper {
    pid_t pid;
    int sock;    /* our end of the socket on which the device comes; -1 = none */
    int text_fd; /* what it says on standard error */
    size_t used;
    char text[256];
};

/* Descriptors for a child must not be among those that they are moved to. */
static int move_high(int *fd)
{
    int high = fcntl(*fd, F_DUPFD_CLOEXEC, 10);

    if (high < 0)
        return -errno;
    close(*fd);
    *fd = high;
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Our environment with _FUSE_COMMFD=3 in it. Free the array only. */
static char **make_environment(void)
{
    static char comm[] = "_FUSE_COMMFD=3";
    size_t n = 0, used = 0;
    char **env;

    while (environ && environ[n])
        n++;
    env = calloc(n + 2, sizeof(*env));
    if (!env)
        return NULL;
    for (size_t i = 0; i < n && environ[i]; i++)
        if (strncmp(environ[i], "_FUSE_COMMFD=", 13))
            env[used++] = environ[i];
    env[used] = comm;
    return env;
}

/*
 * posix_spawn(), for this process may have threads and be large. The child gets /dev/null, our pipe as standard
 * error, the socket as 3, and nothing that somebody else forgot to mark close-on-exec.
 */
static int spawn(const char *path, char *const argv[], int sock, int text, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char **env = make_environment();
    int rc;

    if (!env)
        return -ENOMEM;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    /* It waits for a child of its own, which fails where SIGCHLD is ignored. */
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    rc = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, 0, 1);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, text, 2);
    if (!rc && sock >= 0)
        rc = posix_spawn_file_actions_adddup2(&files, sock, 3);
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 34)
    rc = rc ? rc : posix_spawn_file_actions_addclosefrom_np(&files, sock >= 0 ? 4 : 3);
#endif
#endif
    rc = rc ? rc : posix_spawn(pid, path, &files, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    free(env);
    return -rc;
}

static int start(struct helper *h, const char *path, char *const argv[], bool with_sock)
{
    int sv[2] = { -1, -1 }, text[2] = { -1, -1 }, rc = 0;

    *h = (struct helper){ .sock = -1, .text_fd = -1 };
    if (pipe2(text, O_CLOEXEC) < 0 || (with_sock && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0))
        rc = -errno;
    if (!rc)
        rc = move_high(&text[1]);
    if (!rc && with_sock)
        rc = move_high(&sv[1]);
    if (!rc)
        rc = spawn(path, argv, sv[1], text[1], &h->pid);
    close_fd(&text[1]);
    close_fd(&sv[1]);
    if (rc) {
        close_fd(&text[0]);
        close_fd(&sv[0]);
    }
    h->text_fd = text[0];
    h->sock = sv[0];
    return rc;
}

static bool gone(pid_t pid)
{
    pid_t rc = waitpid(pid, NULL, WNOHANG);

    /* ECHILD: the program ignores SIGCHLD, or reaps all children itself. */
    return rc == pid || (rc < 0 && errno == ECHILD);
}

static bool wait_gone(pid_t pid, int ms)
{
    int64_t end = now_ms() + ms;
    struct timespec pause = { .tv_nsec = 200000 };

    while (!gone(pid)) {
        if (now_ms() >= end)
            return false;
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 10000000)
            pause.tv_nsec *= 2;
    }
    return true;
}

static void reap(pid_t pid, int ms)
{
    if (wait_gone(pid, ms))
        return;
    kill(pid, SIGKILL);
    /* One that hangs in the kernel does not even die of that; we do not hang with it. */
    wait_gone(pid, 2000);
}

static void read_text(struct helper *h)
{
    char scratch[256], *at = h->text + h->used;
    size_t room = sizeof(h->text) - 1 - h->used;
    ssize_t n = room ? read(h->text_fd, at, room) : read(h->text_fd, scratch, sizeof(scratch));

    if (n > 0 && room)
        h->used += (size_t)n;
    else if (n == 0 || (n < 0 && errno != EINTR))
        close_fd(&h->text_fd);
}

/* The descriptor; 0 = end of file; -errno. Descriptor 0 cannot come: it is moved. */
static int receive_fd(int sock)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char c;
    struct iovec iov = { &c, 1 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *head;
    ssize_t n;
    int fd;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : 0;
    head = CMSG_FIRSTHDR(&msg);
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len < CMSG_LEN(sizeof(int)))
        return -EPROTO;
    memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    if (fd == 0) {
        fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
        close(0);
    }
    return fd;
}

/* Read what it says until it sends the device (returned), hangs up (0), or the time is over (-ETIMEDOUT). */
static int await_fd(struct helper *h, int64_t end)
{
    for (;;) {
        struct pollfd p[2] = { { .fd = h->sock, .events = POLLIN }, { .fd = h->text_fd, .events = POLLIN } };
        int64_t left = end - now_ms();
        int n = left > 0 ? poll(p, 2, (int)left) : 0;

        if (n == 0)
            return -ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && p[1].revents)
            read_text(h);
        if (n > 0 && p[0].revents)
            return receive_fd(h->sock);
        if (h->sock < 0 && h->text_fd < 0)
            return 0;
    }
}

/* Its words in one line, without its own name in front. */
static const char *said(struct helper *h)
{
    char *text = h->text;

    h->text[h->used] = '\0';
    while (h->used && h->text[h->used - 1] == '\n')
        h->text[--h->used] = '\0';
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    if (!strncmp(text, HELPER ": ", sizeof(HELPER ": ") - 1))
        text += sizeof(HELPER ": ") - 1;
    return *text ? text : "it does not say why";
}

/* ---- mounting -------------------------------------------------------------------------------------- */

/* Two names with every character escaped, and all the options that there are. */
#define OPTIONS_SIZE (2 * sizeof(struct mf__mount_opts) + 256)

struct text {
    char *at, *end;
};

static void add(struct text *t, const char *name, const char *value)
{
    int n = snprintf(t->at, (size_t)(t->end - t->at), "%s%s", name, value ? value : "");

    if (n > 0 && n < t->end - t->at)
        t->at += n;
}

/* A value may hold what separates options. */
static void add_escaped(struct text *t, const char *name, const char *value)
{
    char one[3];

    add(t, name, NULL);
    for (; *value; value++) {
        snprintf(one, sizeof(one), "%s%c", *value == ',' || *value == '\\' ? "\\" : "", *value);
        add(t, one, NULL);
    }
}

static void write_options(const struct mf__mount_opts *o, char *out, size_t size)
{
    static const struct {
        unsigned long flag;
        const char *name;
    } flags[] = {
        { MF__MS_NOEXEC, ",noexec" },     { MF__MS_SYNCHRONOUS, ",sync" },        { MF__MS_DIRSYNC, ",dirsync" },
        { MF__MS_NOATIME, ",noatime" },   { MF__MS_STRICTATIME, ",strictatime" }, { MF__MS_NODIRATIME, ",nodiratime" },
        { MF__MS_LAZYTIME, ",lazytime" },
    };
    struct text t = { out, out + size };
    char number[16];

    add(&t, o->ms_flags & MF__MS_RDONLY ? "ro" : "rw", NULL);
    /* nosuid and nodev are its default, and for all but root its law. */
    if (geteuid() == 0)
        add(&t, o->ms_flags & MF__MS_NOSUID ? "" : ",suid", o->ms_flags & MF__MS_NODEV ? "" : ",dev");
    for (size_t i = 0; i < MF__ARRAY_SIZE(flags); i++)
        if (o->ms_flags & flags[i].flag)
            add(&t, flags[i].name, NULL);
    if (o->default_permissions)
        add(&t, ",default_permissions", NULL);
    if (o->allow_other || o->allow_root)
        add(&t, ",allow_other", NULL);
    snprintf(number, sizeof(number), "%u", o->max_read);
    if (o->max_read)
        add(&t, ",max_read=", number);
    add_escaped(&t, ",fsname=", o->fsname[0] ? o->fsname : MF__DEFAULT_FSNAME);
    if (o->subtype[0])
        add_escaped(&t, ",subtype=", o->subtype);
}

/* It failed half-way: a mount without a server would hang about at the path. */
static void remove_remains(const char *path)
{
    struct mf__mount_line line;

    if (!mf__mount_line_find(path, 0, &line) && mf__is_fuse_type(line.type))
        mf__helper_unmount(path);
}

static int refused(struct helper *h, int rc, const char *path, const char *why, struct mf_error *err)
{
    close_fd(&h->sock);
    if (rc == -ETIMEDOUT) {
        reap(h->pid, 0);
        remove_remains(path);
        return mf__errorf(err, rc,
                          "cannot mount at '%s': " HELPER " did not answer within %d seconds and was killed"
                          " (it was asked because %s)",
                          path, mf__helper_mount_ms / 1000, why);
    }
    while (h->text_fd >= 0 && await_fd(h, now_ms() + 1000) != -ETIMEDOUT)
        ;
    reap(h->pid, 1000);
    remove_remains(path);
    if (rc == 0)
        rc = access(path, W_OK) < 0 && errno == EACCES ? -EACCES : -EPERM;
    return mf__errorf(err, rc, "cannot mount at '%s': " HELPER " refused: %s (it was asked because %s)", path, said(h),
                      why);
}

int mf__helper_mount(const char *path, const struct mf__mount_opts *opts, const char *why, int *fd,
                     struct mf_error *err)
{
    char helper[512], options[OPTIONS_SIZE];
    char *argv[] = { HELPER, "-o", options, "--", (char *)path, NULL };
    struct helper h;
    int rc;

    if (!mf__helper_find(helper, sizeof(helper)))
        return mf__errorf(err, -EPERM,
                          "cannot mount at '%s': not permitted directly (%s), and there is no " HELPER
                          " to do it: run as root or install the fuse3 package",
                          path, why);
    write_options(opts, options, sizeof(options));
    rc = start(&h, helper, argv, true);
    if (rc)
        return mf__errorf(err, rc, "cannot mount at '%s': starting %s: %s", path, helper, mf__strerror(rc));
    rc = await_fd(&h, now_ms() + mf__helper_mount_ms);
    if (rc <= 0) {
        rc = refused(&h, rc, path, why, err);
        close_fd(&h.text_fd);
        return rc;
    }
    *fd = rc;
    close_fd(&h.text_fd);
    close_fd(&h.sock);
    reap(h.pid, 5000);
    return 0;
}

int mf__helper_unmount(const char *path)
{
    char helper[512];
    char *argv[] = { HELPER, "-u", "-q", "-z", "--", (char *)path, NULL };
    struct helper h;
    int rc;

    if (!mf__helper_find(helper, sizeof(helper)))
        return -EPERM;
    rc = start(&h, helper, argv, false);
    if (rc)
        return rc;
    rc = await_fd(&h, now_ms() + UNMOUNT_MS);
    reap(h.pid, rc < 0 ? 0 : 1000);
    close_fd(&h.text_fd);
    return rc;
}

#else

/* A translation unit must not be empty. */
typedef int mf__helper_is_for_linux;

#endif
