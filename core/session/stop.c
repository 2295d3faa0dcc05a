/* SPDX-License-Identifier: MIT */
/* stop.c - the end of a session: unmount, let readers leave, and force where something does not end. */
#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "session/session.h"

#define AFTER_ABORT_NS (2 * MF_SECOND) /* how long handlers have to notice that their mount was aborted */

void mf__stop_request(struct mf_session *s, int result)
{
    int none = 0;
    ssize_t ignored;

    if (result)
        atomic_compare_exchange_strong(&s->result, &none, result);
    if (atomic_exchange(&s->ending, 1) == 0) {
        ignored = write(s->event[1], "", 1);
        (void)ignored;
    }
}

void mf_session_stop(struct mf_session *s)
{
    mf__stop_request(s, 0);
}

/* Wait for s->changed until `deadline` (monotonic) or for `slice` ns, whichever comes first. Lock held. */
static void wait_changed(struct mf_session *s, uint64_t deadline, uint64_t slice)
{
    uint64_t now = mf__now_ns();

    if (now + slice > deadline)
        slice = deadline > now ? deadline - now : 0;
    (void)mf__cond_wait(&s->changed, &s->lock, slice);
}

/* ---- unmounting, which may wait for dirty pages and so for the filesystem itself ------------------- */

struct unmounting {
    struct mf_session *s;
    bool done;
    int rc;
};

static void *unmount_main(void *arg)
{
    struct unmounting *u = arg;
    int rc = mf__unmount(&u->s->mount);

    pthread_mutex_lock(&u->s->lock);
    u->rc = rc;
    u->done = true;
    pthread_cond_broadcast(&u->s->changed);
    pthread_mutex_unlock(&u->s->lock);
    return NULL;
}

/* The kernel gives a connection's number to the next mount as soon as it is gone: then it must not be aborted. */
static bool connection_lives(struct mf_session *s)
{
    struct pollfd p = { .fd = -1, .events = POLLIN };

    pthread_mutex_lock(&s->lock);
    if (s->channel_count)
        p.fd = s->channels[0]->fd;
    pthread_mutex_unlock(&s->lock);
    return p.fd >= 0 && poll(&p, 1, 0) >= 0 && !(p.revents & (POLLERR | POLLNVAL));
}

static void force(struct mf_session *s)
{
    int null;

    if (!connection_lives(s))
        return;
    if (s->terms.connection && mf__abort_connection(s->terms.connection) == 0)
        return;
    /* The last descriptor's end aborts the connection, too. A late answer then goes nowhere, harmlessly. */
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; null >= 0 && i < s->channel_count; i++) {
        if (s->channels[i]->fd >= 0)
            dup2(null, s->channels[i]->fd);
    }
    pthread_mutex_unlock(&s->lock);
    if (null >= 0)
        close(null);
}

static int unmount_locked(struct mf_session *s)
{
    struct unmounting u = { .s = s };
    uint64_t deadline = mf__now_ns() + s->opts.stop_timeout_ms * 1000000ull;
    pthread_t thread;
    int rc = 0;

    if (!s->mounted)
        return 0;
    if (pthread_create(&thread, NULL, unmount_main, &u) != 0)
        return mf__unmount(&s->mount);
    pthread_mutex_lock(&s->lock);
    while (!u.done && mf__now_ns() < deadline)
        wait_changed(s, deadline, MF_SECOND);
    if (!u.done) {
        pthread_mutex_unlock(&s->lock);
        mf__logf(&s->log, MF_LOG_ERROR, "unmounting takes longer than %u ms: the connection is aborted",
                 s->opts.stop_timeout_ms);
        force(s);
        rc = -ETIMEDOUT;
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_join(thread, NULL);
    s->mounted = false;
    s->unmounted = u.rc == 0;
    return rc ? rc : u.rc;
}

int mf__unmount_own(struct mf_session *s)
{
    int rc;

    pthread_mutex_lock(&s->unmounting);
    rc = unmount_locked(s);
    pthread_mutex_unlock(&s->unmounting);
    return rc;
}

/* ---- readers ------------------------------------------------------------------------------------- */

static void kick_all(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->state) == MF__READER_RECEIVING)
            mf__kick(s->readers[i]);
    }
}

static bool wait_readers(struct mf_session *s, uint64_t deadline)
{
    uint64_t slice = MF_SECOND / 1000;
    bool gone;

    pthread_mutex_lock(&s->lock);
    while (atomic_load(&s->alive) && mf__now_ns() < deadline) {
        kick_all(s);
        pthread_cond_broadcast(&s->changed); /* a reader may wait for a slot, */
        mf__door_tell(s);                    /* or for a seat */
        wait_changed(s, deadline, slice);
        if (slice < MF_SECOND / 100)
            slice *= 2;
    }
    gone = atomic_load(&s->alive) == 0;
    pthread_mutex_unlock(&s->lock);
    return gone;
}

static int release_one(struct mf__slot *slot, void *arg)
{
    (void)arg;
    if (atomic_load(&slot->unique) != 0 && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, -ENOTCONN);
    return 0;
}

/* Requests that were kept for later and never answered: now somebody else must not. */
void mf__release_kept(struct mf_session *s)
{
    mf__slots_each(s, release_one, NULL);
}

/*
 * Whoever has files open after a lazy unmount goes on with requests, and one that is on its way into an entry as the ring
 * closes fails with ECANCELED, of which a client makes nothing. So the connection ends first, with ENOTCONN or ECONNABORTED
 * as on the device, and what is on its way arrives.
 */
static void shut_rings(struct mf_session *s)
{
    if (s->ring_count && !s->abandoned) {
        mf__release_kept(s); /* while that still reaches its client */
        if (s->unmounted && (!connection_lives(s) || mf__abort_connection(s->terms.connection) == 0))
            mf__rings_drain(s);
    }
    mf__rings_shut(s);
}

/* Those who do not leave by themselves. */
static void force_readers(struct mf_session *s)
{
    mf__logf(&s->log, MF_LOG_ERROR, "%u readers are still in handlers after %u ms: the connection is aborted",
             atomic_load(&s->alive), s->opts.stop_timeout_ms);
    force(s);
    if (wait_readers(s, mf__now_ns() + AFTER_ABORT_NS))
        return;
    mf__logf(&s->log, MF_LOG_ERROR, "handlers of %u readers do not return; they are left behind",
             atomic_load(&s->alive));
    s->abandoned = true;
}

int mf__end_service(struct mf_session *s)
{
    uint64_t limit = s->opts.stop_timeout_ms * 1000000ull;
    int rc = 0;

    if (s->monitor_on)
        mf__monitor_wake(s); /* readers are not to yield any more */
    if (!(s->opts.flags & MF_OPT_NO_UNMOUNT))
        rc = mf__unmount_own(s);
    mf__monitor_stop(s);
    atomic_store(&s->stop, 1);
    if (!wait_readers(s, mf__now_ns() + limit)) {
        force_readers(s);
        rc = -ETIMEDOUT;
    }
    shut_rings(s);
    return rc;
}
