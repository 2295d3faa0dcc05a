/* SPDX-License-Identifier: MIT */
/* ring_follow.c - who waits for what comes out of a ring, and who follows. */
#include "transport/ring_private.h"

void mf__ring_call(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (atomic_load(&r->followers) == 0 || atomic_load(&r->led))
        return;
    pthread_mutex_lock(&r->follow);
    if (r->calls < atomic_load(&r->followers))
        r->calls++;
    count_one(&r->counts.calls);
    pthread_mutex_unlock(&r->follow);
    pthread_cond_signal(&r->called);
}

/*
 * One follower looks from time to time while nobody calls: is whoever took the last request still busy with it? Where
 * many looks were in vain that is left to a thread that looks anyway, see mf__ring_look().
 */
struct watch {
    bool mine;
    uint32_t head;    /* at the last look */
    uint64_t wait_ns; /* until the next */
};

/* Has nobody taken a request since the last look, nor waits for one, although there is something to do? */
static bool left_alone(struct ring *r, uint32_t head, uint32_t head_then)
{
    if (head != head_then || atomic_load(&r->led) || !(anything_completed(&r->u) || atomic_load(&r->u.waiting)))
        return false;
    count_one(&r->counts.blocked);
    atomic_store(&r->vain_looks, 0);
    return true;
}

static bool followers_look(const struct ring *r)
{
    return somebody_looks(r) && atomic_load(&r->vain_looks) < MF__PATIENCE;
}

/* With the lock held. Whether to go. */
static bool look_after(struct ring *r, struct watch *w)
{
    uint32_t head;

    if (mf__cond_wait(&r->called, &r->follow, w->wait_ns))
        return false;
    head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);
    if (left_alone(r, head, w->head))
        return true;
    atomic_fetch_add(&r->vain_looks, 1);
    w->wait_ns = head == w->head && atomic_load(&r->led) ? IDLE_WATCH_NS : MF__WATCH_NS;
    w->head = head;
    return false;
}

void mf__ring_follow(struct ring *r, bool served)
{
    struct watch w = { .head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed), .wait_ns = MF__WATCH_NS };
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&r->follow);
    atomic_fetch_add(&r->followers, 1);
    while (r->calls == 0) {
        bool watch = followers_look(r);

        if (!r->watched)
            w.mine = r->watched = true;
        /* Who gave up leading before he could see this one called nobody. */
        if (!watch && !(served && somebody_looks(r)) && !atomic_load(&r->led))
            break;
        if (!watch || !w.mine)
            pthread_cond_wait(&r->called, &r->follow);
        else if (look_after(r, &w))
            break;
        served = false;
    }
    atomic_fetch_sub(&r->followers, 1);
    if (r->calls)
        r->calls--;
    if (w.mine) {
        r->watched = false;
        pthread_cond_signal(&r->called); /* the next one watches */
    }
    pthread_mutex_unlock(&r->follow);
    pthread_setcancelstate(cancel, NULL);
}

/* How it is to be done has changed. */
static void tell_followers(struct ring *r)
{
    if (atomic_load(&r->followers) == 0)
        return;
    pthread_mutex_lock(&r->follow); /* else one that has just looked would sleep all the same */
    pthread_mutex_unlock(&r->follow);
    pthread_cond_broadcast(&r->called);
}

void mf__ring_look(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);

    if (atomic_load(&r->followers) && !followers_look(r) && left_alone(r, head, r->head_then)) {
        mf__ring_call(ch);
        tell_followers(r); /* who is not called looks again */
    }
    r->head_then = head;
}

void mf__ring_nudge(struct ring *r)
{
    /* Until that wake-up is seen all answers that wait are its concern. */
    if (atomic_exchange(&r->nudged, true))
        return;
    count_one(&r->counts.nudges);
    if (!mf__ring_send_message(r))
        mf__uring_wake(&r->u);
    mf__ring_call(&r->ch);
}

void mf__ring_wake(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    mf__uring_wake(&r->u);
    mf__ring_call(&r->ch);
    tell_followers(r);
}
