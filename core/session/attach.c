/* SPDX-License-Identifier: MIT */
/* attach.c - how a session comes by its connection: its own mount, descriptors from elsewhere, memory. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <manifuse/testing.h>

#include "session/session.h"

/* ---- a mount of our own ---------------------------------------------------------------------------- */

/* With SYNC_INIT the mount call waits for INIT to be answered, so another thread answers it meanwhile. */
struct greeter {
    struct mf_session *s;
    struct mf_error *err;
    pthread_t thread;
    bool running;
    _Atomic bool done;
    int rc;
};

static void *greeter_main(void *arg)
{
    struct greeter *g = arg;

    g->rc = mf__handshake(g->s, g->err);
    atomic_store(&g->done, true);
    return NULL;
}

static int take_device(struct mf_session *s, int fd)
{
    struct mf__channel *ch;
    int rc = mf__device_channel(fd, &ch);

    return rc < 0 ? rc : mf__channels_add(s, ch);
}

/* Undo take_device() and the clones: the descriptor itself stays with whoever opened it. */
static void drop_device(struct mf_session *s)
{
    if (s->channel_count)
        s->channels[0]->fd = -1;
    mf__channels_close(s);
}

static int greeter_start(int fd, void *arg)
{
    struct greeter *g = arg;
    int rc = take_device(g->s, fd);

    if (rc < 0)
        return rc;
    rc = -pthread_create(&g->thread, NULL, greeter_main, g);
    if (rc < 0)
        drop_device(g->s);
    g->running = rc == 0;
    return rc;
}

static void greeter_end(int rc, void *arg)
{
    struct greeter *g = arg;

    if (!g->running)
        return;
    if (rc < 0) {
        atomic_store(&g->s->stop, 1);
        while (!atomic_load(&g->done)) {
            pthread_kill(g->thread, mf__kick_install());
            usleep(1000);
        }
    }
    pthread_join(g->thread, NULL);
    atomic_store(&g->s->stop, 0);
    g->running = false;
    if (rc < 0)
        drop_device(g->s);
}

static void undo_mount(struct mf_session *s)
{
    mf__unmount(&s->mount);
    mf__channels_close(s);
    mf__mount_release(&s->mount);
}

int mf__attach_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err)
{
    struct greeter g = { .s = s, .err = err, .rc = 1 };
    struct mf__mount_hooks hooks = { .on_device = greeter_start, .after = greeter_end, .user = &g };
    struct mf_error mount_err = { .size = sizeof(mount_err) };
    int rc;

    mf__kick_install();
    rc = mf__mount(mountpoint, &s->mount_opts, &hooks, &s->mount, &mount_err);
    if (rc < 0) {
        if (g.rc < 0 && g.rc != -ECANCELED && g.rc != -EINTR)
            return g.rc; /* the handshake failed, and the mount with it: that text says more */
        return mf__errorf(err, rc, "%s", mount_err.text);
    }
    if (s->channel_count == 0) {
        rc = take_device(s, s->mount.fd);
        g.rc = rc < 0 ? rc : mf__handshake(s, err);
    }
    s->mount.fd = s->channel_count ? -1 : s->mount.fd;
    if (g.rc < 0) {
        undo_mount(s);
        return g.rc;
    }
    s->mounted = true;
    return 0;
}

/* ---- descriptors of a mount made elsewhere --------------------------------------------------------- */

static int check_fds(const int *fds, uint32_t n, struct mf_error *err)
{
    uint64_t first = 0;

    if (n == 0 || n > MF__MAX_READERS)
        return mf__errorf(err, -EINVAL, "%u descriptors: 1 to %u are needed", n, MF__MAX_READERS);
    for (uint32_t i = 0; i < n; i++) {
        int rc = mf__is_fuse_fd(fds[i]);
        uint64_t number;

        if (rc < 0)
            return mf__errorf(err, rc, "descriptor %d is no descriptor of /dev/fuse: %s", fds[i], mf__strerror(-rc));
        number = mf__connection_number(fds[i]);
        if (i == 0)
            first = number;
        else if (number != first)
            return mf__errorf(err, -EINVAL, "descriptors %d and %d belong to different connections (%llu, %llu)",
                              fds[0], fds[i], (unsigned long long)first, (unsigned long long)number);
    }
    return 0;
}

int mf__attach_channels(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err)
{
    int rc = check_fds(fds, n, err);

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        int flags = fcntl(fds[i], F_GETFD);

        if (flags >= 0)
            fcntl(fds[i], F_SETFD, flags | FD_CLOEXEC);
        rc = take_device(s, fds[i]);
    }
    return rc;
}

static void give_back_fds(struct mf_session *s, uint32_t n)
{
    for (uint32_t i = 0; i < n && i < s->channel_count; i++)
        s->channels[i]->fd = -1;
    mf__channels_close(s);
}

/* Whoever mounted decided by allow_other who gets here; only a narrower wish is ours to enforce. */
static void attached_acl(struct mf_session *s)
{
    if (s->opts.acl == MF_ACL_OWNER)
        s->opts.acl = MF_ACL_ALL;
}

int mf_session_attach_fds(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err)
{
    int rc;

    pthread_mutex_lock(&s->lock);
    rc = s->phase == MF__NEW ? 0 : mf__errorf(err, -EBUSY, "the session has a connection already");
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        return rc;
    attached_acl(s);
    rc = mf__attach_channels(s, fds, n, err);
    if (rc == 0)
        rc = mf__handshake(s, err);
    if (rc < 0)
        give_back_fds(s, n);
    else
        s->phase = MF__READY;
    return rc;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

int mf_session_attach_vkernel(struct mf_session *s, struct mf_vkernel *vk, struct mf_error *err)
{
    struct mf__channel *ch;
    int rc;

    if (s->phase != MF__NEW)
        return mf__errorf(err, -EBUSY, "the session has a connection already");
    attached_acl(s);
    rc = mf__memory_channel(vk, &ch);
    if (rc < 0)
        return mf__errorf(err, rc, "no channel of the virtual kernel: %s", mf__strerror(-rc));
    rc = mf__channels_add(s, ch);
    if (rc == 0)
        rc = mf__handshake(s, err);
    if (rc < 0)
        mf__channels_close(s);
    else
        s->phase = MF__READY;
    return rc;
}
