/* SPDX-License-Identifier: MIT */
/* session.c - the exported calls on sessions: making, connecting, running, ending. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

const char *mf_version(void)
{
    return MF_VERSION_STRING;
}

const char *mf_op_name(uint32_t opcode)
{
    const struct mf__opcode *row = mf__opcode(opcode);

    return row->known ? row->name : NULL;
}

void mf_session_opts_init(struct mf_session_opts *opts, uint32_t size)
{
    memset(opts, 0, size);
    opts->size = size;
}

/* ---- options ------------------------------------------------------------------------------------- */

static int check_numbers(const struct mf_session_opts *o, struct mf_error *err)
{
    if (o->readers > MF__MAX_READERS)
        return mf__errorf(err, -EINVAL, "readers is %u: 0 (automatic) to %u are possible", o->readers, MF__MAX_READERS);
    if (o->clone_fd > MF_CLONE_REQUIRE || o->uring > MF_URING_REQUIRE || o->acl > MF_ACL_ALL)
        return mf__errorf(err, -EINVAL, "clone_fd %u, uring %u, acl %u: each goes from 0 to 2", o->clone_fd, o->uring,
                          o->acl);
    if (o->max_write && (o->max_write < MF__PAGE || o->max_write > 256 * MF__PAGE || o->max_write % MF__PAGE))
        return mf__errorf(err, -EINVAL, "max_write is %u: whole pages of 4096 bytes, 1 to 256 of them", o->max_write);
    if (o->placement > MF_PLACEMENT_FREE)
        return mf__errorf(err, -EINVAL, "placement is %u: auto 0, pinned 1, free 2", o->placement);
    if (o->time_gran > 1000000000u)
        return mf__errorf(err, -EINVAL, "time_gran is %u ns: at most 1,000,000,000", o->time_gran);
    if (o->max_outstanding > MF__MAX_OUTSTANDING || (o->max_outstanding && o->max_outstanding < 4))
        return mf__errorf(err, -EINVAL, "max_outstanding is %u: 4 to %u", o->max_outstanding, MF__MAX_OUTSTANDING);
    if ((o->flags & MF_OPT_INLINE) && o->readers != 1)
        return mf__errorf(err, -EINVAL, "MF_OPT_INLINE goes with readers = 1");
    if (o->uring == MF_URING_REQUIRE && (o->clone_fd == MF_CLONE_REQUIRE || (o->flags & MF_OPT_INLINE)))
        return mf__errorf(
            err, -EINVAL,
            "uring = require excludes clone_fd = require and MF_OPT_INLINE: rings have their own threads");
    return 0;
}

static int copy_text(const char *text, char **out)
{
    *out = text ? strdup(text) : NULL;
    return text && !*out ? -ENOMEM : 0;
}

static int copy_texts(struct mf_session *s, struct mf_error *err)
{
    int rc = copy_text(s->opts.mount_options, &s->mount_text);

    if (rc == 0)
        rc = copy_text(s->opts.fsname, &s->fsname);
    if (rc == 0)
        rc = copy_text(s->opts.subtype, &s->subtype);
    s->opts.mount_options = s->mount_text;
    s->opts.fsname = s->fsname;
    s->opts.subtype = s->subtype;
    return rc < 0 ? mf__errorf(err, rc, "no memory for the options") : 0;
}

static int fit(char *dst, size_t room, const char *text, const char *what, struct mf_error *err)
{
    if (strlen(text) >= room)
        return mf__errorf(err, -EINVAL, "%s is longer than %zu bytes", what, room - 1);
    memcpy(dst, text, strlen(text) + 1);
    return 0;
}

static int settle_mount_opts(struct mf_session *s, struct mf_error *err)
{
    struct mf__mount_opts *m = &s->mount_opts;
    int rc = mf__mount_opts_parse(s->opts.mount_options, m, err);

    if (rc == 0 && !m->fsname[0])
        rc = fit(m->fsname, sizeof(m->fsname), s->opts.fsname ? s->opts.fsname : "manifuse", "fsname", err);
    if (rc == 0 && !m->subtype[0] && s->opts.subtype)
        rc = fit(m->subtype, sizeof(m->subtype), s->opts.subtype, "subtype", err);
    if (rc < 0)
        return rc;
    if (s->opts.acl == MF_ACL_OWNER && m->allow_other)
        s->opts.acl = MF_ACL_ALL;
    else if (s->opts.acl == MF_ACL_OWNER && m->allow_root)
        s->opts.acl = MF_ACL_ROOT_AND_OWNER;
    if (s->opts.acl != MF_ACL_OWNER)
        m->allow_other = true;
    return 0;
}

static int settle_opts(struct mf_session *s, const struct mf_session_opts *opts, struct mf_error *err)
{
    struct mf_session_opts *o = &s->opts;
    int rc = opts ? mf__copy_sized(o, sizeof(*o), opts, sizeof(uint32_t)) : 0;

    if (rc < 0)
        return mf__errorf(
            err, rc, "struct mf_session_opts has a size of %u bytes or fields that this library (%s) does not know",
            opts->size, MF_VERSION_STRING);
    s->log = (struct mf__log){ .sink = o->log, .user = o->log_user, .max_level = MF_LOG_WARNING };
    if (o->log)
        s->log.max_level = MF_LOG_INFO;
    if (o->flags & MF_OPT_DEBUG)
        s->log.max_level = MF_LOG_DEBUG;
    rc = check_numbers(o, err);
    if (rc == 0)
        rc = copy_texts(s, err);
    if (rc == 0)
        rc = settle_mount_opts(s, err);
    if (o->max_write == 0)
        o->max_write = 256 * MF__PAGE;
    if (o->max_outstanding == 0)
        o->max_outstanding = MF__DEFAULT_OUTSTANDING;
    if (o->stop_timeout_ms == 0)
        o->stop_timeout_ms = MF__DEFAULT_STOP_MS;
    return rc;
}

/* ---- making and freeing -------------------------------------------------------------------------- */

static void session_free(struct mf_session *s)
{
    if (s->event[0] >= 0) {
        close(s->event[0]);
        close(s->event[1]);
    }
    mf__crews_free(s);
    free(s->rings);
    mf__door_destroy(&s->door);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->monitor_cond);
    pthread_mutex_destroy(&s->monitor_lock);
    pthread_mutex_destroy(&s->serial);
    pthread_mutex_destroy(&s->unmounting);
    pthread_mutex_destroy(&s->lock);
    free(s->mount_text);
    free(s->fsname);
    free(s->subtype);
    free(s);
}

static void init_locks(struct mf_session *s)
{
    pthread_mutex_init(&s->lock, NULL);
    mf__cond_init(&s->changed);
    pthread_mutex_init(&s->serial, NULL);
    pthread_mutex_init(&s->unmounting, NULL);
    pthread_mutex_init(&s->monitor_lock, NULL);
    pthread_cond_init(&s->monitor_cond, NULL);
    mf__door_init(&s->door);
}

static int session_alloc(const struct mf_session_opts *opts, struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s = NULL;
    int rc;

    *out = NULL;
    if (posix_memalign((void **)&s, MF__CACHE_LINE, sizeof(*s)) != 0)
        return mf__errorf(err, -ENOMEM, "no memory for a session");
    memset(s, 0, sizeof(*s));
    init_locks(s);
    s->pid = getpid();
    s->event[0] = s->event[1] = -1;
    s->mount.fd = s->mount.helper_sock = -1;
    if (pipe2(s->event, O_CLOEXEC | O_NONBLOCK) < 0) {
        rc = mf__errorf(err, -errno, "no descriptors left: %s", mf__strerror(errno));
        s->event[0] = -1;
    } else {
        rc = settle_opts(s, opts, err);
    }
    if (rc < 0) {
        session_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

int mf_session_new(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, struct mf_session **out,
                   struct mf_error *err)
{
    struct mf_session *s;
    int rc = session_alloc(opts, &s, err);

    *out = NULL;
    if (rc < 0)
        return rc;
    rc = mf__copy_sized(&s->typed, sizeof(s->typed), ops, sizeof(uint32_t));
    if (rc < 0) {
        session_free(s);
        return mf__errorf(err, rc,
                          "struct mf_ops has a size of %u bytes or operations that this library (%s) does not know",
                          ops->size, MF_VERSION_STRING);
    }
    s->upcall = mf__typed_upcall;
    s->user = user;
    s->hooks = (struct mf_upcall_ops){ .reader_start = s->typed.reader_start,
                                       .reader_end = s->typed.reader_end,
                                       .destroy = s->typed.destroy,
                                       .interrupted = s->typed.interrupted };
    s->hooks_user = user;
    s->implemented = mf__typed_mask(&s->typed);
    mf__registry_add(s);
    *out = s;
    return 0;
}

int mf_session_new_upcall(const struct mf_upcall_ops *ops, void *user, const struct mf_session_opts *opts,
                          struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = session_alloc(opts, &s, err);

    *out = NULL;
    if (rc < 0)
        return rc;
    rc = mf__copy_sized(&s->hooks, sizeof(s->hooks), ops, offsetof(struct mf_upcall_ops, reader_start));
    if (rc == 0 && !s->hooks.upcall)
        rc = -EINVAL;
    if (rc < 0) {
        session_free(s);
        return mf__errorf(err, rc, "struct mf_upcall_ops lacks its upcall, or is of another version");
    }
    s->upcall = s->hooks.upcall;
    s->user = s->hooks_user = user;
    s->implemented = s->hooks.implemented;
    mf__registry_add(s);
    *out = s;
    return 0;
}

static void call_destroy(struct mf_session *s)
{
    if (s->destroyed || s->abandoned)
        return;
    s->destroyed = true;
    if (s->hooks.destroy)
        s->hooks.destroy(s->hooks_user);
}

/*
 * In a child of fork() the descriptors are closed already, and the mount is the parent's. So are the threads: what they
 * hold or wait for would be waited for here.
 */
static void forget_parent(struct mf_session *s)
{
    init_locks(s);
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_forget(s->rings[i]);
    s->mounted = false;
    s->phase = MF__OVER;
    s->destroyed = true;
    s->channel_count = 0;
}

void mf_session_free(struct mf_session *s)
{
    if (!s)
        return;
    if (s->pid != getpid())
        forget_parent(s);
    if (s->phase == MF__RUNNING) {
        mf__stop_request(s, 0);
        mf_session_finish(s);
    }
    if (s->mounted)
        mf__unmount_own(s);
    mf__registry_remove(s);
    mf__mount_release(&s->mount);
    call_destroy(s);
    if (s->abandoned) /* a handler still uses this memory */
        return;
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__channel_put(s->rings[i]); /* it never ran */
    mf__channels_close(s);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__reader_free(s->readers[i]);
    session_free(s);
}

/* ---- connecting ---------------------------------------------------------------------------------- */

int mf_session_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err)
{
    int fd = mountpoint ? mf__mount_fd_path(mountpoint) : -1;
    int rc;

    if (!mountpoint || !*mountpoint)
        return mf__errorf(err, -EINVAL, "no mount point was given");
    if (fd >= 0)
        return mf_session_attach_fds(s, &fd, 1, err);
    if (s->phase != MF__NEW)
        return mf__errorf(err, -EBUSY, "the session has a connection already");
    rc = mf__attach_mount(s, mountpoint, err);
    if (rc == 0)
        s->phase = MF__READY;
    return rc;
}

int mf_negotiated_check(const struct mf_negotiated *neg, struct mf_error *err)
{
    return mf__terms_check(neg, err);
}

static int join_connection(struct mf_session *s, int fd, const struct mf_negotiated *neg, struct mf_error *err)
{
    int rc = mf__terms_check(neg, err);
    uint64_t claimed;

    if (rc < 0)
        return rc;
    mf__copy_sized(&s->terms, sizeof(s->terms), neg, offsetof(struct mf_negotiated, connection));
    rc = mf__attach_channels(s, &fd, 1, err);
    if (rc < 0)
        return rc;
    claimed = s->terms.connection; /* of the copy: an older library's terms end before it */
    s->terms.connection = mf__connection_number(fd);
    if (claimed && s->terms.connection && claimed != s->terms.connection)
        return mf__errorf(err, -EINVAL, "descriptor %d belongs to connection %llu, the terms to connection %llu", fd,
                          (unsigned long long)s->terms.connection, (unsigned long long)claimed);
    snprintf(s->transport_reason, sizeof(s->transport_reason), "%s",
             s->terms.transport == MF_TRANSPORT_URING
                 ? "the first session has the rings; this one reads what stays on the device: FORGET, INTERRUPT"
                 : "joined on a descriptor of the device");
    if (s->opts.readers == 0)
        s->opts.readers = 1; /* the caller decides how many by how many sessions it makes */
    rc = mf__channels_clone(s, s->opts.readers, err);
    if (rc == 0)
        s->phase = MF__READY;
    return rc;
}

static int joined(struct mf_session *s, int fd, const struct mf_negotiated *neg, struct mf_session **out,
                  struct mf_error *err)
{
    int rc = join_connection(s, fd, neg, err);

    if (rc == 0) {
        *out = s;
        return 0;
    }
    if (s->channel_count)
        s->channels[0]->fd = -1; /* the caller keeps it */
    s->destroyed = true;         /* and what `user` is */
    mf_session_free(s);
    return rc;
}

int mf_session_from_fd_initialized(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, int fd,
                                   const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = mf_session_new(ops, user, opts, &s, err);

    *out = NULL;
    return rc < 0 ? rc : joined(s, fd, neg, out, err);
}

int mf_session_from_fd_initialized_upcall(const struct mf_upcall_ops *ops, void *user,
                                          const struct mf_session_opts *opts, int fd, const struct mf_negotiated *neg,
                                          struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = mf_session_new_upcall(ops, user, opts, &s, err);

    *out = NULL;
    return rc < 0 ? rc : joined(s, fd, neg, out, err);
}

int mf_session_clone_fd(struct mf_session *s, int *fd)
{
    int rc = -ENOTCONN;

    pthread_mutex_lock(&s->lock);
    if (s->channel_count)
        rc = s->channels[0]->fd < 0 ? -ENOTSUP : mf__clone_fd(s->channels[0]->fd, fd);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mf_session_negotiated(struct mf_session *s, struct mf_negotiated *out, uint32_t size)
{
    struct mf_negotiated terms = s->terms;

    if (s->phase == MF__NEW)
        return -ENOTCONN;
    if (size < sizeof(uint32_t))
        return -EINVAL;
    terms.size = size < sizeof(terms) ? size : (uint32_t)sizeof(terms);
    memcpy(out, &terms, terms.size);
    return 0;
}

/* ---- running ------------------------------------------------------------------------------------- */

/* How many readers it begins with, or -errno. Who is added from now on has its thread from who adds it. */
static int enter_running(struct mf_session *s)
{
    int rc = 0;

    pthread_mutex_lock(&s->lock);
    if (s->phase == MF__RUNNING)
        rc = -EBUSY;
    else if (s->phase != MF__READY)
        rc = -ENOTCONN;
    else
        rc = mf__crews_make(s);
    if (rc == 0) {
        s->phase = MF__RUNNING;
        rc = (int)atomic_load(&s->reader_count);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mf_session_start(struct mf_session *s)
{
    int readers = enter_running(s);
    int rc = 0;

    if (readers < 0)
        return readers;
    if ((s->opts.flags & MF_OPT_SIGNALS) && mf__signals_on(s) == 0)
        s->signals_on = true;
    atomic_fetch_add(&s->alive, 1); /* no reader is the last one while others are still to come */
    for (int i = 0; i < readers && rc == 0; i++)
        rc = mf__reader_spawn(s->readers[i]);
    if (rc < 0)
        mf__logf(&s->log, MF_LOG_ERROR, "cannot start all readers: %s", mf__strerror(-rc));
    if (rc < 0)
        atomic_store(&s->last_failure, rc); /* in case that none could be started */
    mf__alive_drop(s);
    if (!atomic_load(&s->ending) && mf__monitor_start(s) < 0)
        mf__logf(&s->log, MF_LOG_WARNING, "no thread for the monitor: the number of readers stays as it is");
    return 0;
}

int mf_session_wait(struct mf_session *s, int timeout_ms)
{
    struct pollfd p = { .fd = s->event[0], .events = POLLIN };
    int n = poll(&p, 1, timeout_ms);

    if (n < 0)
        return -errno;
    return n ? 0 : -ETIMEDOUT;
}

static void wait_uninterrupted(struct mf_session *s)
{
    while (mf_session_wait(s, -1) == -EINTR)
        continue;
}

static void join_readers(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (!r->joinable)
            continue;
        if (atomic_load(&r->state) == MF__READER_ENDED)
            pthread_join(r->thread, NULL);
        else
            pthread_detach(r->thread); /* left behind in its handler */
        r->joinable = false;
    }
}

static void release_channels(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__channel_put(s->readers[i]->ch);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->ring_count; i++) {
        mf__ring_counts(s->rings[i], &s->crews[1 + i].counts);
        mf__channel_put(s->rings[i]);
    }
    s->ring_count = 0;
    mf__channels_close(s);
    pthread_mutex_unlock(&s->lock);
}

static int close_down(struct mf_session *s, int forced)
{
    int rc = atomic_load(&s->result);

    join_readers(s);
    if (!s->abandoned) { /* else a handler may still answer: what it touches then must be there */
        mf__release_kept(s);
        release_channels(s);
    }
    if (s->signals_on)
        mf__signals_off(s);
    s->signals_on = false;
    s->phase = MF__OVER;
    mf__mount_release(&s->mount);
    call_destroy(s);
    return forced == -ETIMEDOUT ? forced : rc;
}

int mf_session_finish(struct mf_session *s)
{
    if (s->phase != MF__RUNNING)
        return -ENOTCONN;
    mf__stop_request(s, 0);
    return close_down(s, mf__end_service(s));
}

/* MF_OPT_INLINE: somebody must wake the reader, and abort for it, while it is in a read or a handler. */
struct supervisor {
    struct mf_session *s;
    int rc;
};

static void *supervise(void *arg)
{
    struct supervisor *v = arg;

    wait_uninterrupted(v->s);
    v->rc = mf__end_service(v->s);
    return NULL;
}

static int run_inline(struct mf_session *s)
{
    struct supervisor v = { .s = s };
    sigset_t kick;
    pthread_t thread;
    int rc = enter_running(s);

    if (rc < 0)
        return rc;
    if ((s->opts.flags & MF_OPT_SIGNALS) && mf__signals_on(s) == 0)
        s->signals_on = true;
    sigemptyset(&kick);
    sigaddset(&kick, mf__kick_install());
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    s->readers[0]->thread = pthread_self();
    atomic_store(&s->alive, 1);
    rc = -pthread_create(&thread, NULL, supervise, &v);
    if (rc < 0) {
        s->phase = MF__READY;
        return rc;
    }
    mf__reader_run(s->readers[0]);
    pthread_join(thread, NULL);
    return close_down(s, v.rc);
}

int mf_session_run(struct mf_session *s)
{
    int rc;

    if (s->opts.flags & MF_OPT_INLINE)
        return run_inline(s);
    rc = mf_session_start(s);
    if (rc < 0)
        return rc;
    wait_uninterrupted(s);
    return mf_session_finish(s);
}

/* Before the start it is enough to want one more. */
static int plan_reader(struct mf_session *s)
{
    uint32_t index = mf__reader_target(s);
    int rc;

    if (index == MF__MAX_READERS || (s->opts.flags & MF_OPT_INLINE))
        return s->opts.flags & MF_OPT_INLINE ? -EINVAL : -EMFILE;
    rc = mf__channels_clone(s, index + 1, NULL);
    if (rc < 0)
        return rc;
    s->opts.readers = index + 1;
    atomic_store(&s->serialize, false);
    return (int)index;
}

int mf_session_add_reader(struct mf_session *s)
{
    struct mf__reader *r = NULL;
    int rc = -ENOTCONN;

    pthread_mutex_lock(&s->lock);
    if (s->phase == MF__READY)
        rc = plan_reader(s);
    else if (s->phase == MF__RUNNING && !atomic_load(&s->ending))
        rc = mf__reader_add(s, s->ring_count == 0, &r);
    if (r) {
        atomic_fetch_add(&s->alive, 1); /* the session does not end between here and the thread's start */
        mf__crews_widen(s, r);
    }
    pthread_mutex_unlock(&s->lock);
    if (!r)
        return rc;
    rc = mf__reader_spawn(r);
    if (rc == 0)
        rc = (int)r->index;
    mf__alive_drop(s);
    return rc;
}

int mf_session_unmount(struct mf_session *s)
{
    return s->mounted ? mf__unmount_own(s) : -ENOTCONN;
}

/* ---- asking -------------------------------------------------------------------------------------- */

const char *mf_session_mountpoint(struct mf_session *s)
{
    return s->mount.path;
}

static uint32_t distinct_channels(const struct mf_session *s, uint32_t readers)
{
    uint32_t n = s->channels_had;

    return n < readers ? n : readers;
}

int mf_session_info(struct mf_session *s, struct mf_info *out)
{
    struct mf_info info = { .size = out->size };
    uint32_t room = out->size < sizeof(info) ? out->size : (uint32_t)sizeof(info);

    if (room < offsetof(struct mf_info, channels))
        return -EINVAL;
    pthread_mutex_lock(&s->lock);
    info.readers = atomic_load(&s->reader_count);
    if (!info.readers && s->phase == MF__READY)
        info.readers = mf__reader_target(s);
    info.channels = distinct_channels(s, info.readers);
    info.transport = s->terms.transport;
    info.clone_error = s->clone_error;
    info.failed_readers = atomic_load(&s->failed_readers);
    info.connection = s->terms.connection;
    memcpy(info.clone_reason, s->clone_reason, sizeof(info.clone_reason));
    memcpy(info.transport_reason, s->transport_reason, sizeof(info.transport_reason));
    info.growths = atomic_load(&s->growths);
    info.shrinks = atomic_load(&s->shrinks);
    mf__placement_describe(s, info.placement, sizeof(info.placement));
    pthread_mutex_unlock(&s->lock);
    memcpy(out, &info, room);
    return 0;
}
