/* SPDX-License-Identifier: MIT */
/* reader.c - the loop of one reader, its thread, and what happens when it dies. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/syscall.h>
#endif

#define MAX_RENEWALS 3u /* channels in a row that a reader may lose before the session is given up */

/*
 * One word of thread-local memory, reached without a call: the static TLS block has room for it also where
 * the library is loaded at run time.
 */
_Thread_local struct mf__reader *mf__self __attribute__((tls_model("initial-exec")));

static uint32_t thread_id(void)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    return (uint32_t)syscall(SYS_gettid);
#else
    return 0;
#endif
}

static void name_thread(pthread_t thread, const char *name)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    pthread_setname_np(thread, name);
#else
    (void)thread;
    (void)name;
#endif
}

/* Somebody else's descriptor may be non-blocking. */
static void wait_readable(struct mf__channel *ch)
{
    struct pollfd p = { .fd = ch->fd, .events = POLLIN };

    if (ch->fd >= 0)
        poll(&p, 1, 100);
}

/* The channel broke while others may be well: report it and go on with a new clone. */
static bool renew_channel(struct mf__reader *r, int error)
{
    struct mf_session *s = r->session;
    struct mf__channel *ch;
    int rc = r->ch->ops->clone(r->ch, &ch);

    atomic_fetch_add(&s->failed_readers, 1);
    mf__logf(&s->log, MF_LOG_ERROR, "reader %u: descriptor %d failed: %s; %s", r->index, r->ch->fd,
             mf__strerror(-error), rc == 0 ? "replaced by a new clone" : "no clone to replace it");
    if (rc < 0)
        return false;
    pthread_mutex_lock(&s->lock);
    rc = mf__channels_add(s, ch);
    if (rc == 0) {
        mf__channel_get(ch);
        atomic_store_explicit(&r->rx, ch, memory_order_relaxed);
        mf__channel_put(r->ch);
        r->ch = ch;
        r->fd = ch->fd;
    } else {
        mf__channel_put(ch);
    }
    pthread_mutex_unlock(&s->lock);
    return rc == 0;
}

MF__COLD static bool receive_failed(struct mf__reader *r, struct mf__channel *ch, int rc, uint32_t *renewals)
{
    if (ch != r->ch && mf__ring_state(ch) < 0) {
        mf__crew_fall_back(r, mf__ring_state(ch));
        return true;
    }
    switch (rc) {
    case -EINTR: return true;
    case -EAGAIN: wait_readable(r->ch); return true;
    case -ENODEV: /* unmounted: the ordinary end */ mf__stop_request(r->session, 0); return false;
    case -ECONNABORTED: mf__stop_request(r->session, -ECONNABORTED); return false;
    default:
        if (++*renewals <= MAX_RENEWALS && renew_channel(r, rc))
            return true;
        atomic_store(&r->session->last_failure, rc);
        if (*renewals > MAX_RENEWALS)
            mf__stop_request(r->session, rc);
        return false;
    }
}

static void serve(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    uint32_t renewals = 0;

    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        struct mf__channel *ch = mf__crew_channel(r);
        struct mf__io *got;
        int rc;

        if (ch && !r->spare)
            r->spare = mf__slot_take(r);
        if (!ch || !r->spare)
            break;
        atomic_store_explicit(&r->rx, ch, memory_order_relaxed);
        r->spare->io.own = atomic_load_explicit(&r->own, memory_order_relaxed);
        atomic_store_explicit(&r->state, MF__READER_RECEIVING, memory_order_relaxed);
        rc = ch->ops->receive(ch, &r->spare->io, &got);
        atomic_store_explicit(&r->state, MF__READER_BUSY, memory_order_relaxed);
        mf__count(&r->stats.wakeups, 1);
        if (rc < 0) {
            if (!receive_failed(r, ch, rc, &renewals))
                break;
            continue;
        }
        if (got == &r->spare->io)
            r->spare = NULL;
        got->ch = ch;
        renewals = 0;
        if (atomic_load_explicit(&s->monitor_asleep, memory_order_relaxed))
            mf__monitor_wake(s);
        mf__dispatch(r, MF__CONTAINER_OF(got, struct mf__slot, io));
    }
    mf__reader_flush(r);
}

void mf__alive_drop(struct mf_session *s)
{
    if (atomic_fetch_sub(&s->alive, 1) == 1 && !atomic_load(&s->ending))
        mf__stop_request(s, atomic_load(&s->last_failure));
}

static void reader_ended(struct mf__reader *r)
{
    struct mf_session *s = r->session;

    mf__crew_leave(r);
    atomic_store(&r->state, MF__READER_ENDED);
    atomic_store(&r->tid, 0);
    mf__self = NULL;
    pthread_mutex_lock(&s->lock);
    mf__alive_drop(s);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/*
 * An entry that this thread armed fails its next request once the thread is gone: it must outlive the rings.
 * The caller is none of the session's readers any more.
 */
static void hold_entries(struct mf_session *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->rings_shut)
        pthread_cond_wait(&s->changed, &s->lock);
    s->holders--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void begin_hold(struct mf_session *s)
{
    pthread_mutex_lock(&s->lock);
    s->holders++;
    pthread_mutex_unlock(&s->lock);
}

#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(const volatile void *addr, size_t size);

/* Cancelling leaves functions without their ends: what they marked on the stack is no longer true. */
static void forget_frames(void)
{
    pthread_attr_t attr;
    size_t size;
    void *base;

    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    pthread_attr_getstack(&attr, &base, &size);
    __asan_unpoison_memory_region(base, (size_t)((char *)__builtin_frame_address(0) - (char *)base));
    pthread_attr_destroy(&attr);
}
#else
static void forget_frames(void)
{
}
#endif

/* Somebody cancelled this thread: answer what it had in hand and let another one take its place. */
static void reader_cancelled(void *arg)
{
    struct mf__reader *r = arg;
    struct mf_session *s = r->session;
    struct mf__slot *slot = r->current;
    bool joinable;

    forget_frames();
    atomic_fetch_add(&s->failed_readers, 1);
    mf__logf(&s->log, MF_LOG_ERROR, "reader %u was cancelled%s; a new thread takes its place", r->index,
             slot ? " in a handler" : "");
    if (r->claimed) /* in the middle of an answer: should it be out already, this one is refused */
        mf__send_error(r->claimed, -EIO);
    if (slot && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, -EIO);
    if (slot && (slot->inside || (atomic_fetch_or(&slot->left, MF__LEFT_HANDLER) & MF__LEFT_ANSWERER)))
        mf__slot_recycle(slot); /* else whoever answers gives it back */
    r->current = NULL;
    r->entered = false; /* the thread takes along what its handler had entered */
    if (s->hooks.reader_end)
        s->hooks.reader_end(s, r->index, s->hooks_user);
    pthread_mutex_lock(&s->lock);
    joinable = r->joinable;
    r->joinable = false;
    pthread_mutex_unlock(&s->lock);
    if (joinable)
        pthread_detach(pthread_self());
    mf__self = NULL;
    begin_hold(s);
    if (!atomic_load(&s->stop) && mf__reader_spawn(r) == 0)
        atomic_fetch_sub(&s->alive, 1); /* the new thread has counted itself */
    else
        reader_ended(r);
    hold_entries(s);
}

void mf__reader_run(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    mf__self = r;
    atomic_store(&r->tid, thread_id());
    pthread_cleanup_push(reader_cancelled, r);
    if (s->hooks.reader_start)
        s->hooks.reader_start(s, r->index, s->hooks_user);
    serve(r);
    pthread_cleanup_pop(0);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* too late: it has nothing in hand, and it ends */
    if (s->hooks.reader_end)
        s->hooks.reader_end(s, r->index, s->hooks_user);
    begin_hold(s);
    reader_ended(r);
    hold_entries(s);
    pthread_setcancelstate(cancel, NULL);
}

static void *reader_main(void *arg)
{
    struct mf__reader *r = arg;
    char name[16];

    snprintf(name, sizeof(name), "mf-reader-%u", r->index);
    name_thread(pthread_self(), name);
    mf__reader_run(r);
    return NULL;
}

/*
 * Signals of the program go to the program's own threads. What a language's runtime needs on every thread
 * (preemption, profiling, faults) and the kick stay open.
 */
static void reader_mask(sigset_t *mask)
{
    static const int open[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGURG, SIGPROF };

    sigfillset(mask);
    for (size_t i = 0; i < MF__ARRAY_SIZE(open); i++)
        sigdelset(mask, open[i]);
    sigdelset(mask, mf__kick_install());
}

int mf__reader_spawn(struct mf__reader *r)
{
    sigset_t mask, old;
    int rc;

    reader_mask(&mask);
    atomic_store(&r->state, MF__READER_NEW); /* not in a handler: its crew needs no other one for it */
    atomic_fetch_add(&r->session->alive, 1);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
    pthread_mutex_lock(&r->session->lock); /* whoever kicks reads r->thread */
    rc = pthread_create(&r->thread, NULL, reader_main, r);
    r->joinable = rc == 0;
    pthread_mutex_unlock(&r->session->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        atomic_fetch_sub(&r->session->alive, 1);
        atomic_store(&r->state, MF__READER_ENDED);
        return -rc;
    }
    return 0;
}

int mf__helper_thread(pthread_t *out, const char *name, void *(*fn)(void *), void *arg)
{
    sigset_t mask, old;
    int rc;

    sigfillset(&mask);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
    rc = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        name_thread(*out, name);
    return -rc;
}
