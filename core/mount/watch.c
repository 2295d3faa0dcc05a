/* SPDX-License-Identifier: MIT */
/*
 * watch.c - auto_unmount: a process that outlives us and cleans up. fusermount3 has the like, but it takes the
 * dead mount of a user for a live one (seen with 3.14), and it knows mounts by their paths only.
 */
#include "mount/internal.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS 10000

/*
 * The handlers that others registered for fork() may take locks that threads hold which the child lacks. The
 * child does nothing but system calls.
 */
static pid_t fork_bare(void)
{
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 34)
    return _Fork();
#endif
#endif
    return fork();
}

/*
 * Run-time checkers wrap _exit() and prctl(): in the child these look for the parent's threads, or wait for locks
 * that the parent's threads held.
 */
static _Noreturn void leave(int status)
{
    for (;;)
        syscall(SYS_exit_group, status);
}

static void set_name(const char *name)
{
    syscall(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
}

/* Keep `fd` as descriptor 0 and nothing else: above all not the device, which would keep the mount alive. */
static void keep_only(int fd)
{
    struct rlimit limit = { .rlim_cur = 1024 };

    if (fd != 0 && dup2(fd, 0) < 0)
        leave(1);
    (void)fcntl(0, F_SETFD, FD_CLOEXEC);
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 1u, ~0u, 0u) == 0)
        return;
#endif
    getrlimit(RLIMIT_NOFILE, &limit);
    for (rlim_t i = 1; i < limit.rlim_cur; i++)
        close((int)i);
}

struct watched {
    const char *path;
    const struct mf__ident *ident;
    char helper[512]; /* "" = there is none */
};

/*
 * In the detached child. All signals stay blocked, as they were before the fork: a service manager that ends
 * all processes of a service shall find the mount gone when its server is.
 */
static _Noreturn void watch(int fd, const struct watched *w)
{
    char *argv[] = { "fusermount3", "-u", "-q", "-z", "--", (char *)w->path, NULL };
    char c = 'r';
    ssize_t n;

    keep_only(fd);
    (void)setsid();
    set_name("mf-auto-unmount");
    if (chdir("/") < 0 || write(0, &c, 1) != 1)
        leave(1);
    do
        n = read(0, &c, 1);
    while (n > 0 || (n < 0 && errno == EINTR));
    /* Where it is ours but not for us to unmount, it is so for fusermount3. */
    if (mf__umount_if(w->path, w->ident) == -EPERM && w->helper[0])
        execve(w->helper, argv, environ);
    leave(0);
}

/* The child of a child: when the one between has ended, the watcher is init's to reap. */
static int fork_twice(int fd, const struct watched *w)
{
    pid_t pid = fork_bare();

    if (pid < 0)
        return -errno;
    if (pid == 0) {
        pid = fork_bare();
        if (pid == 0)
            watch(fd, w);
        leave(pid < 0);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

/* The watcher reports once it has cut itself loose; end of file: it could not. */
static int await_ready(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char c;
    int n;

    do
        n = poll(&p, 1, READY_MS);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return -ETIMEDOUT;
    return read(fd, &c, 1) == 1 ? 0 : -EAGAIN;
}

int mf__watch(const char *path, const struct mf__ident *ident, int *sock)
{
    struct watched w = { .path = path, .ident = ident };
    sigset_t all, old;
    int sv[2], rc;

    if (!mf__helper_find(w.helper, sizeof(w.helper)))
        w.helper[0] = '\0';
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return -errno;
    /* Else a handler of the program's could run in the child, between fork and exit. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = fork_twice(sv[1], &w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(sv[1]);
    if (!rc)
        rc = await_ready(sv[0]);
    if (rc)
        close(sv[0]);
    else
        *sock = sv[0];
    return rc;
}

#else

/* A translation unit must not be empty. */
typedef int mf__watch_is_for_linux;

#endif
