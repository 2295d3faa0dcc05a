/* SPDX-License-Identifier: MIT */
/* door.c - seats for readers of the device: who has one, who waits for one, who loses his. */
#include <poll.h>

#include "session/session.h"

#define FEW_LEFT 4u                     /* seats: until then it says nothing that they were left behind */
#define OPEN_NS 64000000u               /* at first; a trial costs a few milliseconds where most handlers wait; */
#define OPEN_MAX_NS 1024000000u         /* doubled up to this each time that one fails, */
#define TRIAL_NS 64000000u              /* which is within this time */
#define EMPTY_NS (3 * MF__WATCH_NS / 2) /* that a seat is taken by one who waits, until somebody looks */
#define LOST_LIMIT 12u                  /* the share of all seats' time: what it saves to receive with few */
#define LEFT_OF (64u * MF__SLOW_LIMIT)  /* requests after which what was counted before counts half */

void mf__door_init(struct mf__door *door)
{
    pthread_mutex_init(&door->lock, NULL);
    mf__cond_init(&door->changed);
    door->counted_ns = mf__now_ns();
}

void mf__door_destroy(struct mf__door *door)
{
    pthread_cond_destroy(&door->changed);
    pthread_mutex_destroy(&door->lock);
}

/* ---- seats: with the lock held ------------------------------------------------------------------- */

/* Without a seat it belongs where it did before: else many might come to belong to one CPU. */
static void stand_up(struct mf_session *s, struct mf__reader *r)
{
    if (!atomic_exchange_explicit(&r->seated, false, memory_order_relaxed))
        return;
    atomic_store(&r->home, mf__crew_cpu(r, &s->crews[0]));
    s->door.seated--;
}

/* A seat is one on a CPU where readers have one each: the reader moves to where nobody sits. */
static void sit_down(struct mf_session *s, struct mf__reader *r)
{
    bool taken[MF__MAX_READERS] = { false };
    int32_t home = atomic_load(&r->home);
    uint32_t cpu = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        int32_t other = atomic_load(&s->readers[i]->home);

        if (other >= 0 && atomic_load(&s->readers[i]->seated))
            taken[other] = true;
    }
    while (cpu < s->one_per_cpu && taken[cpu])
        cpu++;
    if (home >= 0 && taken[home] && cpu < s->one_per_cpu)
        atomic_store(&r->home, (int32_t)cpu);
    atomic_store_explicit(&r->seated, true, memory_order_relaxed);
    s->door.seated++;
}

static uint64_t all_requests(struct mf_session *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        sum += atomic_load_explicit(&s->readers[i]->stats.requests, memory_order_relaxed);
    return sum;
}

/* Nobody has a seat then, and what was judged by is counted anew. */
static void turn(struct mf_session *s, bool shut)
{
    struct mf__door *d = &s->door;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        stand_up(s, s->readers[i]);
    d->since_ns = mf__now_ns();
    d->left = 0;
    d->served = all_requests(s);
    d->counted_ns = d->since_ns;
    d->vain_looks = 0;
    atomic_store(&d->shut, shut);
    pthread_cond_broadcast(&d->changed);
}

/* One alone would keep all others waiting each time that its handler does. */
static uint32_t seats(const struct mf__door *d, const struct mf__crew *c)
{
    uint32_t base = atomic_load(&c->base);

    return base == 1 && d->left ? 2 : base;
}

/* Do so many handlers wait that it had better be open? Of the requests, or for what the empty seats cost. */
static bool many_left(const struct mf_session *s, uint64_t served, uint64_t elapsed)
{
    const struct mf__door *d = &s->door;
    uint64_t lost = d->left * EMPTY_NS, had = elapsed * seats(d, &s->crews[0]);

    return d->left >= FEW_LEFT && (d->left * MF__SLOW_LIMIT > served || lost * LOST_LIMIT > had);
}

static void judge(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint64_t served = all_requests(s) - d->served, now = mf__now_ns(), elapsed = now - d->counted_ns;

    if (many_left(s, served, elapsed)) {
        bool failed = now - d->since_ns < TRIAL_NS;

        d->open_ns = !failed ? OPEN_NS : d->open_ns < OPEN_MAX_NS ? 2 * d->open_ns : OPEN_MAX_NS;
        mf__count(&d->opened, 1);
        turn(s, false);
    } else if (served > LEFT_OF) {
        d->served += served / 2;
        d->counted_ns += elapsed / 2;
        d->left /= 2;
    }
}

static void leave_behind(struct mf_session *s, struct mf__reader *r)
{
    stand_up(s, r);
    s->door.left++;
    mf__count(&s->door.blocked, 1);
    s->door.vain_looks = 0;
}

/* ---- the door ------------------------------------------------------------------------------------ */

/* Where that cannot be asked: yes. */
static bool request_waits(const struct mf_session *s)
{
    struct pollfd p = { .fd = s->channels[0]->fd, .events = POLLIN };

    return p.fd < 0 || poll(&p, 1, 0) > 0;
}

/* Whoever has a seat and is where he was at the last look loses it, if it is wanted. */
static void look(struct mf_session *s)
{
    bool wanted = false;

    s->door.vain_looks++;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint64_t requests = atomic_load_explicit(&r->stats.requests, memory_order_relaxed);

        if (!atomic_load(&r->seated))
            continue;
        if (requests == r->seen_requests && atomic_load(&r->state) == MF__READER_BUSY) {
            wanted = wanted || request_waits(s);
            if (wanted)
                leave_behind(s, r);
        }
        r->seen_requests = requests;
    }
    judge(s);
}

static bool full(struct mf_session *s, const struct mf__crew *c)
{
    return atomic_load(&s->door.shut) && s->door.seated >= seats(&s->door, c);
}

/* For a signal, or as the one who watches for a while. */
static void wait_once(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (d->watched || d->vain_looks >= MF__PATIENCE) {
        pthread_cond_wait(&d->changed, &d->lock);
        return;
    }
    d->watched = true;
    if (!mf__cond_wait(&d->changed, &d->lock, MF__WATCH_NS))
        look(s);
    d->watched = false;
}

void mf__door_wait(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf_session *s = r->session;
    struct mf__door *d = &s->door;
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&d->lock);
    atomic_store(&r->state, MF__READER_WAITING);
    d->waiting++;
    while (full(s, c) && !atomic_load(&s->stop) && atomic_load(&c->members) <= atomic_load(&c->limit))
        wait_once(s);
    d->waiting--;
    atomic_store(&r->state, MF__READER_BUSY);
    if (atomic_load(&d->shut) && !full(s, c))
        sit_down(s, r);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed); /* the next one watches */
    pthread_setcancelstate(cancel, NULL);
}

void mf__door_leave(struct mf__reader *r)
{
    struct mf__door *d = &r->session->door;

    if (!atomic_load(&r->seated))
        return;
    pthread_mutex_lock(&d->lock);
    stand_up(r->session, r);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
}

/* Without the lock: a reader that yields may be kept from its CPU with it. One that just begins to wait may miss it. */
void mf__door_tell(struct mf_session *s)
{
    pthread_cond_broadcast(&s->door.changed);
}

/* ---- the monitor's: whoever has the lock may be a reader that yields, and the next tick is soon --------- */

void mf__door_try(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (!d->used)
        return;
    if (!atomic_load(&d->shut) && mf__now_ns() - d->since_ns >= d->open_ns && pthread_mutex_trylock(&d->lock) == 0) {
        turn(s, true);
        pthread_mutex_unlock(&d->lock);
    }
    /* Those who received as it was shut, and at a later tick who was about to. */
    if (atomic_load(&d->shut))
        mf__crew_recall_unseated(s);
}

bool mf__door_admit(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    bool done = false;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return false;
    for (uint32_t i = 0; d->waiting && !done && i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        done = atomic_load(&r->seated) && atomic_load(&r->state) == MF__READER_BUSY;
        if (done)
            leave_behind(s, r);
    }
    judge(s);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
    return done;
}

void mf__door_unseat_held(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (s->readers[i]->held && atomic_load(&s->readers[i]->seated))
            leave_behind(s, s->readers[i]);
    }
    judge(s);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
}

void mf__door_free_stuck(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint32_t before;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return;
    before = d->seated;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (mf__reader_stuck(s->readers[i]))
            stand_up(s, s->readers[i]);
    }
    if (d->seated < before)
        pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

uint32_t mf__door_lacks(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint32_t lacks = 0;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return 0;
    judge(s);
    if (atomic_load(&d->shut) && d->left && !d->waiting)
        lacks = 1 + (uint32_t)(d->blocked - d->blocked_then);
    d->blocked_then = d->blocked;
    pthread_mutex_unlock(&d->lock);
    return lacks;
}
