/* SPDX-License-Identifier: MIT */
/*
 * monitor.c - the thread that sees a crew with no member to receive, and helps.
 *
 * A crew needs help when at one look all of its members are in handlers, asleep: a handler that computes, or waits
 * for a CPU, would not get on faster with another reader beside it. Should it compute for long (its CPU time says so),
 * the crew gets one more all the same, so that a short request need not wait for the end of a long one. Where many
 * requests were served since the last look one such look says little, and two must agree.
 */
#include <string.h>
#include <time.h>

#include "session/session.h"

#define TICK_NS 1000000
#define FEW_PER_MEMBER 4u /* requests of a millisecond: handlers of 250 µs and more count as slow */
#define MANY 16u /* of a millisecond: another reader is not called before each, and answers may wait for each other */
#define RARE 256 /* one in so many */
#define OFTEN_GAP 192u   /* handlers that were timed between two that waited: then each reader has a ring of its own, */
#define SELDOM_GAP 2048u /* and after so many without one it has not: to answer several at once is worth as much */
#define MEAN_LOOKS 64    /* over which it is judged how many handlers wait */
#define LOOKS_BETWEEN 3u
#define QUIET_TICKS 32u  /* then the monitor sleeps */
#define WINDOW_MAX 8192u /* ticks */
#define FAST_TICKS 16u
#define THIN_TICKS 128u              /* a client that moves to another CPU may be back soon */
#define STEADY_TICK_NS (4 * TICK_NS) /* while no handler takes long, or nothing comes, */
#define FAST_TICK_NS (8 * TICK_NS)   /* and while many do not: the monitor's own turns would be felt */
#define BUSY_TICK_NS (16 * TICK_NS) /* likewise on a busy machine: each turn may cost whoever it interrupts his slice */
#define CALM_TICKS 64u              /* then the crew seems to be large enough */
#define COMPUTING_TICKS 50u
#define LATE_NS 2000000u /* after its sleep: the monitor waits for a CPU, or there is none to spare */
#define LONGEST_TICK_NS 999000000u

struct view {
    uint32_t members;
    uint32_t free;    /* not in handlers; */
    uint32_t waiting; /* of those, without a seat, */
    uint32_t coming;  /* and who will be there in a moment */
    uint32_t stuck;   /* of the device, while its readers are placed */
    uint32_t held;    /* of the device: asleep in one handler since the last look, and not stuck yet */
    uint32_t apart;   /* of a ring, who wait on their own */
    uint64_t requests, timed, slow;
    uint64_t served; /* since the last look */
    uint64_t rate;   /* of a tick */
};

static void look(struct mf_session *s, struct mf__crew *c, struct view *v)
{
    memset(v, 0, sizeof(*v));
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint32_t state = atomic_load(&r->state);
        bool apart = mf__reader_apart(r);

        if (atomic_load(&r->crew) != c)
            continue;
        v->members++;
        v->requests += atomic_load_explicit(&r->stats.requests, memory_order_relaxed);
        v->timed += atomic_load_explicit(&r->stats.timed, memory_order_relaxed);
        v->slow += atomic_load_explicit(&r->stats.slow, memory_order_relaxed);
        v->apart += apart;
        v->free += state != MF__READER_BUSY && !apart;
        v->waiting += state == MF__READER_WAITING;
        v->coming += state == MF__READER_NEW || state == MF__READER_PARKED;
        if (!c->ring && mf__reader_stuck(r))
            v->stuck++;
    }
}

/* In one and the same handler all the while: between two looks at it a reader may have gone to wait for requests. */
static bool waits_in_handler(struct mf__reader *r)
{
    uint64_t requests = atomic_load(&r->stats.requests);

    return atomic_load(&r->state) == MF__READER_BUSY && mf__task_sleeps(r) &&
           atomic_load(&r->state) == MF__READER_BUSY && atomic_load(&r->stats.requests) == requests;
}

/* Is one in a handler, and not asleep there? */
static bool one_computes(struct mf_session *s, struct mf__crew *c)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c && atomic_load(&r->state) == MF__READER_BUSY && !r->held && !mf__task_sleeps(r))
            return true;
    }
    return false;
}

static void forget_held(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        s->readers[i]->held = false;
}

/*
 * How many of the device's readers wait in one handler since the last look? While others serve so many requests that all
 * seems well, nothing else says that they are too few. One that slept there once is not asked again. Where handlers exclude
 * each other, and one computes, the others may be asleep for no other reason.
 */
static uint32_t count_held(struct mf_session *s, struct mf__crew *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint64_t requests = atomic_load(&r->stats.requests);
        bool same = requests == r->ticked_requests && atomic_load(&r->crew) == c;

        r->ticked_requests = requests;
        r->held = same && atomic_load(&r->state) == MF__READER_BUSY && !mf__reader_stuck(r) &&
                  (r->held || mf__task_sleeps(r));
        n += r->held;
    }
    if (n == 0 || !(s->hooks.flags & MF_UPCALL_EXCLUSIVE) || !one_computes(s, c))
        return n;
    forget_held(s);
    return 0;
}

/* None of a crew's members runs, waits for a CPU, or receives. */
static bool all_wait(struct mf_session *s, struct mf__crew *c)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c && atomic_load(&r->state) != MF__READER_WAITING && !mf__reader_apart(r) &&
            !waits_in_handler(r))
            return false;
    }
    return true;
}

static uint64_t time_on_cpu(struct mf_session *s, struct mf__crew *c)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c)
            sum += mf__task_ran_ns(r);
    }
    return sum;
}

/* A parked reader; before others one that can do nothing but yield, where it may. Lock held. */
static struct mf__reader *parked(struct mf_session *s, const struct mf__crew *c)
{
    struct mf__reader *found = NULL;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->state) != MF__READER_PARKED || atomic_load(&r->crew) || !mf__placement_fits(r, c))
            continue;
        if (atomic_load(&r->spent))
            return r;
        found = found ? found : r;
    }
    return found;
}

/* All readers are taken: a crew with members to spare gives one, which can be had at the next look. */
static void take_from_others(struct mf_session *s, struct mf__crew *poor)
{
    for (uint32_t i = 0; i < s->crew_count; i++) {
        struct mf__crew *c = &s->crews[i];
        struct view v;

        look(s, c, &v);
        if (c != poor && v.members > c->base && v.free > 1) {
            mf__crew_shrink(s, c, v.members - 1);
            return;
        }
    }
}

/* Who waits on a ring of his own may be there in vain for ever: he is not one of those that are meant to be enough. */
static uint32_t most_readers(struct mf_session *s)
{
    uint32_t most = s->reader_limit;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        most += mf__reader_apart(s->readers[i]);
    return most < MF__MAX_READERS ? most : MF__MAX_READERS;
}

/* A parked reader, or a new one, becomes a member. false: there is none at the moment. */
static bool grow(struct mf_session *s, struct mf__crew *c)
{
    struct mf__reader *r = NULL;
    bool fresh = false, full;

    pthread_mutex_lock(&s->lock);
    full = atomic_load(&c->members) >= c->most || atomic_load(&s->ending);
    if (!full)
        r = parked(s, c);
    if (!r && !full && atomic_load(&s->reader_count) < most_readers(s))
        fresh = mf__reader_add(s, c->ring == NULL, &r) == 0;
    if (r) {
        atomic_fetch_add(&c->limit, 1);
        atomic_fetch_add(&c->members, 1);
        atomic_store(&r->crew, c);
        mf__count(&s->growths, 1);
        mf__count(&c->growths, 1);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    if (!r && !full)
        take_from_others(s, c);
    if (r && fresh && mf__reader_spawn(r) < 0)
        mf__crew_leave(r);
    return r != NULL;
}

static void begin_window(struct mf__crew *c)
{
    c->ticks = 0;
    c->served = 0;
    c->least_free = UINT32_MAX;
}

/* Of the handlers that were timed of late next to none took long. */
static bool never_slow(const struct mf__crew *c)
{
    return c->slow_mean * RARE <= c->timed_mean;
}

/*
 * Have they done nothing but take turns? Handlers returned so fast that they must have; or those that return at all
 * did not wait, and which do not is known: of readers that yield on the device.
 */
static bool take_turns(const struct mf_session *s, const struct mf__crew *c, uint32_t members)
{
    bool yielding = s->place.on_device && atomic_load(&s->place_mode) == MF__PLACE_YIELDING;

    return c->served >= (uint64_t)FEW_PER_MEMBER * members * c->ticks || (yielding && never_slow(c));
}

/*
 * At the end of a window in which nobody had to help: is one member too many? Yes if two were always free, or if
 * all of them only took turns.
 */
static void review(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    uint32_t members = v->members, least = c->base + v->stuck + v->apart;
    uint32_t spare = c->least_free > 1 ? c->least_free - 1 : take_turns(s, c, members);

    c->taken = spare && members > least;
    if (c->taken)
        mf__crew_shrink(s, c, members - spare > least ? members - spare : least);
    if (c->window > MF__CREW_WINDOW)
        c->window -= c->window / 8;
    begin_window(c);
}

bool mf__handlers_wait(struct mf_session *s)
{
    struct view v;

    for (uint32_t i = 0; i < s->crew_count; i++) {
        if (!never_slow(&s->crews[i]))
            return true;
    }
    if (mf__door_is_open(&s->door))
        return true;
    look(s, &s->crews[0], &v);
    return v.members - v.stuck > s->one_per_cpu;
}

/* And many requests come. */
static bool fast(const struct mf__crew *c)
{
    return never_slow(c) && c->fast_ticks >= FAST_TICKS;
}

/*
 * Many requests were served, which may have been those of one client while others wait behind handlers that wait.
 * All asleep at one look says little then, and costs: so not at each, and twice.
 */
static uint32_t lacking_though_fast(struct mf_session *s, struct mf__crew *c)
{
    c->stuck_ticks = 0;
    if (fast(c) || ++c->busy_looks % LOOKS_BETWEEN)
        return 0;
    c->asleep_looks = all_wait(s, c) ? c->asleep_looks + 1 : 0;
    return c->asleep_looks > 1;
}

/*
 * Members beyond those that wait in handlers: as many as when all is quiet, and who is not needed waits at the door. Where
 * that is open he would receive with the others, who take time from each other: then one is enough.
 */
static uint32_t needed(const struct mf_session *s, const struct mf__crew *c, const struct view *v)
{
    uint32_t usual = c->base + v->stuck + v->apart;
    uint32_t at_least = (mf__door_is_open(&s->door) ? 1 : c->base) + v->stuck + v->held;

    return usual > at_least ? usual : at_least;
}

/* How many more members a crew should have now. */
static uint32_t lacking(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    uint32_t at_door = !c->ring && !v->coming ? mf__door_lacks(s) : 0;
    uint64_t ran;

    if (v->members < needed(s, c, v))
        return 1;
    if (at_door)
        return at_door;
    if (v->free > v->waiting || v->members == 0) {
        c->stuck_ticks = c->asleep_looks = 0;
        return 0;
    }
    if (v->rate >= (uint64_t)FEW_PER_MEMBER * v->members)
        return lacking_though_fast(s, c);
    if (all_wait(s, c)) /* doubling: twenty clients in waiting handlers are served after a few ticks */
        return (v->members + 1) / 2;
    ran = time_on_cpu(s, c);
    if (v->served || c->stuck_ticks++ == 0) {
        c->stuck_ticks = !v->served;
        c->ran_ns = ran;
        return 0;
    }
    if (c->stuck_ticks < COMPUTING_TICKS || ran - c->ran_ns < COMPUTING_TICKS * TICK_NS / 2)
        return 0;
    c->stuck_ticks = 0;
    return 1;
}

/* Since the last look; 0: nothing, or a member has gone with its count. */
static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* The mean of what a count grew by at each look. */
static void follow_mean(int64_t *mean, uint64_t *count, uint64_t now)
{
    int64_t off = (int64_t)grown(now, *count) * 1024 - *mean;

    *count = now;
    *mean += (off < 0 ? off - (MEAN_LOOKS - 1) : off) / MEAN_LOOKS; /* down to 0 */
}

/* Do handlers wait so often that each reader had better have a ring of its own? */
static void judge_gaps(struct mf__crew *c, const struct view *v)
{
    uint64_t timed = grown(v->timed, c->timed), slow = grown(v->slow, c->slow);

    if (slow) {
        c->often_slow = c->often_slow || slow > 1 || c->slow_gap < OFTEN_GAP;
        c->slow_gap = 0;
    } else if (c->slow_gap < SELDOM_GAP) {
        c->slow_gap += (uint32_t)(timed < SELDOM_GAP ? timed : SELDOM_GAP);
    } else {
        c->often_slow = false;
    }
}

/* Before which handlers readers of a ring call another one: where answers may not wait any more, those that do go out. */
static void judge_calling(struct mf__crew *c, bool many)
{
    enum mf__calling now = atomic_load(&c->ring->calling), wanted = now == MF__OWN_RINGS ? MF__CALL_SLOW : now;

    if ((c->often_slow && c->most > 1) || mf__ring_has_orphans(c->ring))
        wanted = MF__OWN_RINGS;
    else if (many || (c->thin_ticks >= THIN_TICKS && c->timed_mean))
        wanted = MF__CALL_SLOW;
    else if (c->thin_ticks >= THIN_TICKS)
        wanted = MF__CALL_ALWAYS;
    if (wanted == now)
        return;
    atomic_store(&c->ring->calling, wanted);
    c->ring->ops->wake(c->ring);
}

static void judge_speed(struct mf__crew *c, const struct view *v, uint32_t ticks)
{
    bool many = v->rate >= MANY, few_slow;

    judge_gaps(c, v);
    follow_mean(&c->timed_mean, &c->timed, v->timed);
    follow_mean(&c->slow_mean, &c->slow, v->slow);
    few_slow = c->slow_mean * MF__SLOW_LIMIT <= c->timed_mean;
    c->fast_ticks = many && few_slow ? c->fast_ticks + ticks : 0;
    c->thin_ticks = many ? 0 : c->thin_ticks + ticks;
    if (c->ring)
        judge_calling(c, many);
}

/* Nothing came, and somebody would take what comes; handlers return at once; they do, and few are called; the rest. */
enum found { QUIET, FAST, STEADY, OTHER };

static enum found judge(const struct mf__crew *c, const struct view *v)
{
    if (v->served == 0 && v->free > v->waiting)
        return QUIET;
    if (fast(c) && !c->thin_ticks && !v->held)
        return FAST;
    if (c->calm_ticks >= CALM_TICKS || (never_slow(c) && (c->timed_mean || v->free)))
        return STEADY;
    return OTHER;
}

/* One more receives: one who waits for a seat, or a new member. */
static bool reinforce(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    return v->waiting ? mf__door_admit(s) : grow(s, c);
}

static enum found watch(struct mf_session *s, struct mf__crew *c, uint32_t ticks)
{
    struct view v;
    uint32_t more;

    look(s, c, &v);
    if (c->ring)
        mf__ring_look(c->ring);
    else
        mf__door_try(s);
    if (!c->ring && (v.held = count_held(s, c)))
        mf__door_unseat_held(s);
    v.served = grown(v.requests, c->requests);
    v.rate = v.served / ticks;
    atomic_store_explicit(&c->rate, v.rate, memory_order_relaxed);
    c->requests = v.requests;
    judge_speed(c, &v, ticks);
    more = lacking(s, c, &v);
    c->calm_ticks = v.free && !more ? c->calm_ticks + ticks : 0;
    if (more) {
        while (more-- && reinforce(s, c, &v))
            continue;
        if (c->taken && c->ticks < c->window && c->window < WINDOW_MAX)
            c->window *= 2; /* it was taken away too early */
        c->taken = false;
        begin_window(c);
        return OTHER;
    }
    if (v.free < c->least_free)
        c->least_free = v.free;
    c->served += v.served;
    c->ticks += ticks;
    if (c->ticks >= c->window)
        review(s, c, &v);
    return judge(c, &v);
}

/* Somebody parked himself as the monitor went to sleep: nobody else would take his place. */
static bool understaffed(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->crew_count && !atomic_load(&s->ending); i++) {
        if (atomic_load(&s->crews[i].members) < atomic_load(&s->crews[i].base))
            return true;
    }
    return false;
}

/*
 * From now on nobody looks whether a reader that took a request, and called nobody for it, is long in its handler. One that
 * takes its first request later sees that the monitor sleeps.
 */
static void call_followers(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_call(s->rings[i]);
}

/*
 * Followers that watch may sleep, too: they see it at their next look. Nothing is held now, and nobody is to be woken for
 * it: one that yields and is kept waiting for its CPU, by others' clients, say, while it has next to nothing to do there,
 * is owed that time from then on. The scheduler would let it run after each request of its own clients for as long as
 * they go on, one request each time where there could be sixteen (32 clients did 0.8 of the calls that they do else).
 */
static void monitor_sleep(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++) {
        if (!mf__ring_has_orphans(s->rings[i]))
            atomic_store(&s->rings[i]->calling, MF__CALL_ALWAYS);
    }
    pthread_mutex_lock(&s->monitor_lock);
    atomic_store(&s->monitor_asleep, 1);
    call_followers(s);
    while (atomic_load(&s->monitor_asleep) && !atomic_load(&s->monitor_end) && !understaffed(s))
        pthread_cond_wait(&s->monitor_cond, &s->monitor_lock);
    atomic_store(&s->monitor_asleep, 0);
    pthread_mutex_unlock(&s->monitor_lock);
}

/*
 * Sleep for a tick. How much longer it took. A monitor that does not get to run leaves what little there is to the
 * readers, and looks less often.
 */
static uint64_t sleep_tick(uint64_t *tick_ns)
{
    struct timespec tick = { .tv_nsec = (long)*tick_ns };
    uint64_t start = mf__now_ns(), took;

    nanosleep(&tick, NULL);
    took = mf__now_ns() - start;
    took -= took < *tick_ns ? took : *tick_ns;
    if (took > LATE_NS)
        *tick_ns = 4 * took < LONGEST_TICK_NS ? 4 * took : LONGEST_TICK_NS;
    return took;
}

static uint64_t next_tick(const struct mf_session *s, enum found found)
{
    static const uint64_t tick_for[] = {
        [QUIET] = STEADY_TICK_NS, [FAST] = FAST_TICK_NS, [STEADY] = STEADY_TICK_NS, [OTHER] = TICK_NS
    };
    bool busy = atomic_load(&s->place_mode) == MF__PLACE_PLAIN && (found == FAST || found == STEADY);

    return busy ? BUSY_TICK_NS : tick_for[found];
}

static void *monitor_main(void *arg)
{
    struct mf_session *s = arg;
    uint64_t tick_ns = TICK_NS, last = mf__now_ns();
    uint32_t quiet = 0;

    mf__placement_start(s);
    while (!atomic_load(&s->monitor_end)) {
        uint64_t late = sleep_tick(&tick_ns), now = mf__now_ns();
        uint32_t ticks = now - last < 2 * TICK_NS ? 1 : (uint32_t)((now - last) / TICK_NS);
        enum found most = QUIET;

        last = now;
        mf__placement_look(s, now, late);
        for (uint32_t i = 0; i < s->crew_count; i++) {
            enum found found = watch(s, &s->crews[i], ticks);

            most = found > most ? found : most;
        }
        if (late <= LATE_NS)
            tick_ns = next_tick(s, most);
        quiet = most == QUIET ? quiet + ticks : 0;
        if (quiet >= QUIET_TICKS && mf__placement_may_sleep(s)) {
            monitor_sleep(s);
            mf__placement_resume(s);
            quiet = 0;
            tick_ns = TICK_NS;
            last = mf__now_ns();
        }
    }
    return NULL;
}

void mf__monitor_wake(struct mf_session *s)
{
    pthread_mutex_lock(&s->monitor_lock);
    atomic_store(&s->monitor_asleep, 0);
    pthread_mutex_unlock(&s->monitor_lock); /* first: it would run at once, and wait for a reader that yields */
    pthread_cond_signal(&s->monitor_cond);
}

int mf__monitor_start(struct mf_session *s)
{
    int rc = 0;

    if (!s->may_grow && !s->ring_count && !s->place.on_device)
        return 0;
    rc = mf__helper_thread(&s->monitor, "mf-monitor", monitor_main, s);
    s->monitor_on = rc == 0;
    return rc;
}

void mf__monitor_stop(struct mf_session *s)
{
    if (s->monitor_on) {
        atomic_store(&s->monitor_end, 1);
        mf__monitor_wake(s);
        pthread_join(s->monitor, NULL);
        s->monitor_on = false;
    }
    mf__tasks_forget(s);
    mf__placement_stop(s);
}
