/* SPDX-License-Identifier: MIT */
/* crew.c - who receives: joining, parking and leaving a crew. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

/* More than CPUs would only take turns while handlers return at once, and be woken for it: 8 on 2 serve a quarter less. */
static uint32_t one_per_cpu(const struct mf_session *s)
{
    uint32_t target = mf__reader_target(s);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return cpus > 0 && target > (uint32_t)cpus ? (uint32_t)cpus : target;
}

/* Readers that are there for good. The device beside rings carries FORGET and INTERRUPT only. */
static uint32_t device_base(const struct mf_session *s)
{
    if (s->ring_count || (s->hooks.flags & MF_UPCALL_EXCLUSIVE))
        return 1;
    return s->one_per_cpu;
}

/*
 * The same by how they are placed. Those that exclude each other are worth their while side by side where they yield: the
 * right one has most to do. Beside a client that copies a stream one does as well as two, who would take turns with it
 * and with each other.
 */
static uint32_t placed_base(const struct mf_session *s, uint32_t mode)
{
    switch (mode) {
    case MF__PLACE_YIELDING: return s->one_per_cpu;
    case MF__PLACE_APART: return 1;
    default: return device_base(s);
    }
}

void mf__crews_place(struct mf_session *s, uint32_t before, uint32_t mode)
{
    struct mf__crew *device = &s->crews[0];

    if (!s->place.on_device)
        return;
    /* External readers have their own part in it. */
    atomic_fetch_add(&device->base, placed_base(s, mode) - placed_base(s, before));
    if (mode == MF__PLACE_APART)
        mf__crew_shrink(s, device, atomic_load(&device->base));
}

/* Does this one receive on the device, or will it soon? */
static bool serves_device(struct mf__reader *r)
{
    uint32_t state = atomic_load(&r->state);

    return atomic_load(&r->crew) == &r->session->crews[0] && !mf__reader_stuck(r) &&
           (state == MF__READER_RECEIVING || state == MF__READER_BUSY);
}

/*
 * More on the CPU that waits least would bring nothing: they would take the requests of the other CPU's clients, too,
 * since they are there first (measured beside handlers that sleep: a fifth fewer calls of the others).
 */
void mf__crew_spread(struct mf_session *s)
{
    struct mf__reader *spare[MF__MAX_READERS];
    bool served[MF__MAX_READERS] = { false };
    uint32_t spares = 0;

    mf__door_free_stuck(s);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        int32_t home = atomic_load(&r->home);

        if (home < 0 || !serves_device(r))
            continue;
        if (served[home])
            spare[spares++] = r;
        served[home] = true;
    }
    for (uint32_t cpu = 0; cpu < s->one_per_cpu && spares; cpu++) {
        if (served[cpu])
            continue;
        atomic_store(&spare[--spares]->home, (int32_t)cpu);
        if (atomic_load(&spare[spares]->state) == MF__READER_RECEIVING)
            mf__kick(spare[spares]);
    }
    pthread_mutex_unlock(&s->lock);
}

static bool receives(struct mf__reader *r, const struct mf__crew *c)
{
    return atomic_load(&r->crew) == c && atomic_load(&r->state) == MF__READER_RECEIVING && !mf__reader_apart(r);
}

/* So many of the members that wait for requests look whether they still should. */
static void recall(struct mf_session *s, const struct mf__crew *c, uint32_t count)
{
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count) && count; i++) {
        if (receives(s->readers[i], c)) {
            mf__kick(s->readers[i]);
            count--;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

void mf__crew_recall_unseated(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (!receives(r, &s->crews[0]) || atomic_load(&r->seated))
            continue;
        pthread_mutex_lock(&s->lock);
        if (receives(r, &s->crews[0]))
            mf__kick(r);
        pthread_mutex_unlock(&s->lock);
    }
}

void mf__crew_shrink(struct mf_session *s, struct mf__crew *c, uint32_t limit)
{
    uint32_t members = atomic_load(&c->members);

    if (limit >= members)
        return;
    atomic_store(&c->limit, limit);
    mf__count(&s->shrinks, 1);
    mf__count(&c->shrinks, 1);
    if (!c->ring)
        mf__door_tell(s);
    recall(s, c, members - limit);
}

static void crew_init(const struct mf_session *s, struct mf__crew *c, struct mf__channel *ring, uint32_t base)
{
    c->ring = ring;
    c->cpu = -1;
    c->base = base;
    c->most = s->opts.readers ? s->opts.readers : MF__AUTO_READERS;
    c->window = MF__CREW_WINDOW;
    c->least_free = UINT32_MAX;
    c->slow_gap = UINT32_MAX;
    atomic_init(&c->members, 0);
    atomic_init(&c->limit, base);
}

/* A ring of one queue serves the clients of one CPU: there its readers belong. */
static int32_t ring_cpu(const struct mf_session *s, uint32_t ring)
{
    if (s->opts.placement == MF_PLACEMENT_FREE || s->ring_count != s->ring_queues)
        return -1;
    return (int32_t)ring;
}

/* Readers of the device share the CPUs out if they are told to, or yield there: see placement.c. */
int32_t mf__crew_cpu(const struct mf__reader *r, const struct mf__crew *c)
{
    long cpus;

    if (c->ring || (r->session->opts.placement != MF_PLACEMENT_PINNED && !r->session->place.on_device))
        return c->cpu;
    if (atomic_load(&r->seated))
        return atomic_load(&r->home); /* the seat's */
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 ? (int32_t)(r->index % (uint32_t)cpus) : -1;
}

/*
 * So many readers were asked for, so many handlers may run at once, whatever the queue: queues do not take over each
 * other's requests, so each ring may come to have that many.
 */
static uint32_t reader_limit(const struct mf_session *s, uint32_t total)
{
    uint32_t limit = s->opts.readers ? s->opts.readers * s->crew_count : MF__AUTO_READERS;

    if (limit > MF__MAX_READERS)
        limit = MF__MAX_READERS;
    return limit > total ? limit : total;
}

/* By the program's first thread: the one that calls may itself have been bound. */
static void note_allowed(struct mf_session *s)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    if (sched_getaffinity(getpid(), sizeof(s->allowed), &s->allowed) < 0)
        memset(&s->allowed, 0xff, sizeof(s->allowed));
#else
    (void)s;
#endif
}

int mf__crews_make(struct mf_session *s)
{
    uint32_t count = 1 + s->ring_count;
    uint32_t total = mf__reader_target(s);
    uint32_t reader = 0;
    int rc;

    s->crews = calloc(count, sizeof(*s->crews));
    if (!s->crews)
        return -ENOMEM;
    s->crew_count = count;
    note_allowed(s);
    s->one_per_cpu = one_per_cpu(s);
    crew_init(s, &s->crews[0], NULL, device_base(s));
    for (uint32_t i = 0; i < s->ring_count; i++) {
        crew_init(s, &s->crews[1 + i], s->rings[i], 1);
        s->crews[1 + i].cpu = ring_cpu(s, i);
    }
    if (total < s->crews[0].base + s->ring_count)
        total = s->crews[0].base + s->ring_count;
    rc = mf__readers_make(s, total);
    for (uint32_t c = 0; rc == 0 && c < count; c++) {
        for (uint32_t i = 0; i < s->crews[c].base; i++)
            atomic_store(&s->readers[reader++]->crew, &s->crews[c]);
        atomic_store(&s->crews[c].members, s->crews[c].base);
    }
    s->place.on_device = mf__placement_of_device(s);
    s->takes_turns = (s->hooks.flags & MF_UPCALL_EXCLUSIVE) && total > 1 && sysconf(_SC_NPROCESSORS_ONLN) > 1;
    s->reader_limit = reader_limit(s, total);
    s->may_grow = s->reader_limit > total || total > reader;
    s->door.used = s->may_grow && !s->ring_count;
    atomic_store(&s->door.shut, s->door.used);
    return rc;
}

/* For a reader that is in no crew; the lock is held. */
static void join_device(struct mf_session *s, struct mf__reader *r)
{
    struct mf__crew *device = &s->crews[0];

    atomic_fetch_add(&device->limit, 1);
    atomic_fetch_add(&device->members, 1);
    atomic_store(&r->crew, device);
}

void mf__crews_widen(struct mf_session *s, struct mf__reader *r)
{
    atomic_store(&s->serialize, false);
    for (uint32_t i = 0; i < s->crew_count; i++)
        s->crews[i].most++;
    s->reader_limit = s->reader_limit + s->crew_count < MF__MAX_READERS ? s->reader_limit + s->crew_count
                                                                        : MF__MAX_READERS;
    if (s->ring_count)
        return; /* it waits until a ring has need of it */
    /* It joins the device's crew for good: the caller knows that it is needed. */
    atomic_fetch_add(&s->crews[0].base, 1);
    join_device(s, r);
}

void mf__crews_free(struct mf_session *s)
{
    free(s->crews);
    s->crews = NULL;
    s->crew_count = 0;
}

static void settle_on_cpu(struct mf__reader *r, int32_t cpu)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    const cpu_set_t *allowed = &r->session->allowed;
    cpu_set_t set;

    if (cpu == r->cpu)
        return;
    CPU_ZERO(&set);
    if (cpu >= 0)
        CPU_SET((unsigned)cpu, &set);
    /* An offline or forbidden CPU: then the thread stays where it may run. */
    (void)sched_setaffinity(0, sizeof(set), cpu >= 0 && CPU_ISSET((unsigned)cpu, allowed) ? &set : allowed);
    r->cpu = cpu;
#else
    (void)r;
    (void)cpu;
#endif
}

static bool surplus(struct mf__crew *c)
{
    uint32_t members = atomic_load_explicit(&c->members, memory_order_relaxed);

    while (members > atomic_load_explicit(&c->limit, memory_order_relaxed)) {
        if (atomic_compare_exchange_weak(&c->members, &members, members - 1))
            return true;
    }
    return false;
}

void mf__reader_flush(struct mf__reader *r)
{
    struct mf__channel *ch = atomic_load_explicit(&r->rx, memory_order_relaxed);

    mf__leave_language(r);
    if (ch != r->ch)
        mf__ring_flush(ch, atomic_load_explicit(&r->own, memory_order_relaxed));
}

static void give_own(struct mf__reader *r)
{
    struct mf__own_ring *own = atomic_exchange(&r->own, NULL);

    if (own)
        mf__own_ring_give(own);
}

/* One that cannot be had is done without, until the reader comes to another crew. */
MF__COLD static void take_own(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf__own_ring *own;

    r->no_own = mf__ring_take_own(c->ring, &own) < 0;
    if (!r->no_own)
        atomic_store(&r->own, own);
}

static bool needs_own(const struct mf__reader *r, const struct mf__crew *c)
{
    return c->ring && atomic_load_explicit(&c->ring->calling, memory_order_relaxed) == MF__OWN_RINGS &&
           !atomic_load_explicit(&r->own, memory_order_relaxed) && !r->no_own;
}

static struct mf__crew *park(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    mf__reader_flush(r);
    mf__door_leave(r);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    give_own(r);
    r->no_own = false;
    pthread_mutex_lock(&s->lock);
    atomic_store(&r->crew, NULL);
    atomic_store(&r->state, MF__READER_PARKED);
    while (!atomic_load(&r->crew) && !atomic_load(&s->stop))
        pthread_cond_wait(&s->changed, &s->lock);
    atomic_store(&r->state, MF__READER_BUSY);
    pthread_mutex_unlock(&s->lock);
    pthread_setcancelstate(cancel, NULL);
    return atomic_load(&r->crew);
}

/* Nothing of what decides where and how it runs has changed. */
static bool is_settled(const struct mf__reader *r, const struct mf__crew *c)
{
    return r->settled == c && r->settled_home == atomic_load_explicit(&r->home, memory_order_relaxed) &&
           r->settled_mode == atomic_load_explicit(&r->session->place_mode, memory_order_relaxed) &&
           !atomic_load_explicit(&r->freed, memory_order_relaxed);
}

/* Before it is acted upon: should anything change meanwhile, the next look finds that out. */
static void note_settled(struct mf__reader *r, struct mf__crew *c)
{
    if (r->settled != c)
        atomic_store(&r->home, mf__crew_cpu(r, c));
    r->settled = c;
    r->settled_mode = atomic_load(&r->session->place_mode);
    r->settled_home = atomic_load(&r->home);
}

/* The crew that it serves then, which is another one if it may not run as this one's do; NULL: the session stops. */
static struct mf__crew *settle(struct mf__reader *r, struct mf__crew *c)
{
    mf__reader_flush(r);
    note_settled(r, c);
    mf__take_back(r);
    settle_on_cpu(r, mf__placement_unbound(r->session, c) ? -1 : atomic_load(&r->home));
    while (c && !mf__placement_apply(r, c)) {
        /* The monitor sees a crew that is too small, and takes a thread that may run as it should. */
        atomic_fetch_sub(&c->limit, 1);
        atomic_fetch_sub(&c->members, 1);
        mf__monitor_wake(r->session);
        c = park(r);
    }
    return c;
}

static bool needs_seat(const struct mf__reader *r, const struct mf__crew *c)
{
    return !c->ring && atomic_load_explicit(&r->session->door.shut, memory_order_relaxed) &&
           !atomic_load_explicit(&r->seated, memory_order_relaxed);
}

/* The crew that it serves then; NULL: the session stops. */
MF__COLD static struct mf__crew *wait_for_seat(struct mf__reader *r, struct mf__crew *c)
{
    if (r->settled != c)
        atomic_store(&r->home, mf__crew_cpu(r, c)); /* unless somebody sits there */
    while (c && needs_seat(r, c) && !atomic_load(&r->session->stop)) {
        mf__door_wait(r, c);
        if (surplus(c))
            c = park(r);
    }
    return atomic_load(&r->session->stop) ? NULL : c;
}

struct mf__channel *mf__crew_channel(struct mf__reader *r)
{
    struct mf__crew *c = atomic_load_explicit(&r->crew, memory_order_relaxed);

    if (!c || (!mf__reader_apart(r) && surplus(c)))
        c = park(r);
    if (c && needs_seat(r, c))
        c = wait_for_seat(r, c);
    if (c && !is_settled(r, c))
        c = settle(r, c);
    if (!c)
        return NULL;
    if (needs_own(r, c))
        take_own(r, c);
    return c->ring ? c->ring : r->ch;
}

void mf__crew_leave(struct mf__reader *r)
{
    struct mf__crew *c = atomic_load(&r->crew);

    mf__door_leave(r);
    give_own(r);
    atomic_store(&r->crew, NULL); /* nobody else changes it while it is set */
    if (c)
        atomic_fetch_sub(&c->members, 1);
}

void mf__crew_fall_back(struct mf__reader *r, int error)
{
    struct mf_session *s = r->session;
    struct mf__crew *c = atomic_load(&r->crew);

    if (c && c->ring)
        atomic_store(&c->base, 0); /* else the monitor would send one after the other here */
    mf__crew_leave(r);
    pthread_mutex_lock(&s->lock);
    if (s->terms.transport == MF_TRANSPORT_URING) {
        s->terms.transport = s->channels[0]->ops->kind;
        snprintf(s->transport_reason, sizeof(s->transport_reason), "the kernel refused the ring's entries: %s",
                 mf__strerror(-error));
        mf__logf(&s->log, MF_LOG_WARNING, "%s; requests come on the device", s->transport_reason);
    }
    join_device(s, r);
    pthread_mutex_unlock(&s->lock);
}
