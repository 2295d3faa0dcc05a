/* SPDX-License-Identifier: MIT */
/*
 * placement.c - how readers stand towards their clients in the scheduler's eyes.
 *
 * A ring is fast because client and reader take turns on one CPU. A server that runs in a scheduling group of its
 * own (a session, with autogroup) loses that: at each answer the scheduler finds another CPU idle and moves the
 * client there. It leaves the client where it is if the reader counts for nothing: class SCHED_IDLE, and the
 * group at nice 19. On a machine that is busy with other things the same would starve the server. So readers
 * yield like that only as long as they are not kept waiting: the time that a thread was ready to run and did not
 * is in its schedstat, and more than LONG_WAIT_NS for each request ends it within some tens of milliseconds. Where the
 * monitor has no priority it may be kept waiting, too: that says the same. So does
 * a machine without an idle CPU, if the readers leave most of it to others.
 *
 * On the device a request wakes the reader that has waited longest, on whatever CPU. But with one that yields on the
 * client's own CPU, this one runs as soon as the client sleeps, and has the request before the other is awake: most
 * requests then cross no CPU there either. It takes a reader on each CPU, and the right to leave SCHED_IDLE again, for
 * this is the ordinary case of sessions whose handlers may start threads and programs: inherit.c sets those free.
 *
 * A stream that is read ahead is another matter: the client copies what it has got while the reader could bring the
 * next. One CPU for both would have them take turns, so there the readers run apart, wherever there is room: where streams
 * are read on every CPU there is none, and they are together again at the next look. On the device one is enough for such a
 * client: two take turns with it and with each other.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

/* One ring for each CPU. */
static bool rings_placed(const struct mf_session *s)
{
    return s->ring_count && s->ring_count == s->ring_queues && s->opts.placement == MF_PLACEMENT_AUTO;
}

/* In words: where readers are bound to, and how they are scheduled now. */
void mf__placement_describe(struct mf_session *s, char *text, size_t room)
{
    const char *how = "scheduled as any thread";
    const char *where = "readers run on any CPU";

    if (s->opts.placement == MF_PLACEMENT_PINNED)
        where = "each reader is bound to a CPU, as asked";
    else if (rings_placed(s))
        where = "ring readers are bound to their queue's CPU";
    else if (s->place.on_device && atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        where = "readers are bound to a CPU each";
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        how = "they yield to their clients, since the machine is quiet";
    else if (atomic_load(&s->place_mode) == MF__PLACE_PLAIN)
        how = "they do not yield, since the machine is busy, other threads answer, or one caller shares their session";
    else if (atomic_load(&s->place_mode) == MF__PLACE_APART)
        how = s->place.on_device ? "for now one of them serves all, beside clients that copy streams"
                                 : "for now on any, apart from the clients that read streams";
    snprintf(text, room, "%s; %s", where, how);
}

#if defined(__linux__) && !defined(MF_NO_LINUX)

#define GROUP_NICE 19 /* the least weight: with more, clients that run drift into one request per turn of a reader */
#define GROUP_NICE_WOKEN 10 /* where threads of the group are woken to answer: with less they are late */
#define GROUP_NICE_UNWATCHED 5
#define CATCH_UP 10         /* nice values below its own, for a look or longer: see wanted_nice() */
#define LOOK_NS 24000000u   /* between two looks */
#define LONG_WAIT_NS 20000u /* for each request; 4 to 7 µs where only the mount's own clients run, 1 to 32 of them */
#define LONG_WAIT_WOKEN_NS 120000u /* where each request wakes a reader: 20 to 95 µs with 16 handlers that sleep 1 ms */
#define WAIT_PER_BYTE_NS 2u        /* and while a client copies what it gets: 0.9 with one in a stream, 1.7 with 8 */
#define LONG_WAKE_NS 2000000u      /* in all, for a reader to get to run for the first request after a pause */
#define LONG_LOOKS 2u              /* in a row */
#define WINDOW_NS 64000000u        /* over which idle time is looked at */
#define STREAM_BYTES 32768u        /* of a request, on the mean: its client's copying is what takes the CPUs */
#define STREAM_REQUESTS 8u         /* between two looks */
#define MANY_FOREIGN 16u           /* answers between two looks: other threads give them, beside or by way of readers */
#define MANY_IN_HAND 2u            /* requests for each CPU, where that is so */
#define APART_NS MF_SECOND         /* before it is seen whether yielding would do */
#define APART_LOOKS 3u             /* in a row */
#define LONG_NS 200000u            /* after its request: a client has been asleep for long */
#define RUSH 50u                   /* requests of a millisecond on one ring: a client calls there without pause */
#define ENOUGH_TURNS 16u           /* below this a window says nothing, */
#define LONG_WINDOW_NS (4 * WINDOW_NS) /* unless it is so long */
#define HOLD_NS (MF_SECOND / 4)        /* at first, before it tries again; doubled each time that goes wrong */
#define HOLD_MAX_NS (16 * MF_SECOND)
#define RESTORE_TRIES 40         /* of 5 ms: twice as long as the kernel may refuse it */
#define TRIAL_NS (MF_SECOND / 5) /* a relapse within this time counts as gone wrong */

static _Atomic(struct mf_session *) autogroup_owner; /* one session of the process may set the group's nice */

/* 0 or -errno. Without CAP_SYS_ADMIN the kernel takes one value in a tenth of a second: -EAGAIN. */
static int write_group_nice(int nice)
{
    int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    char text[16];
    int rc;

    if (fd < 0)
        return -EAGAIN; /* for want of descriptors, say */
    rc = write(fd, text, (size_t)snprintf(text, sizeof(text), "%d", nice)) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/*
 * The group's nice value is the whole session's: only a process that leads its own may change it. Where the monitor
 * does not stand above it a smaller one must do, or it could not see any more that the group starves.
 */
static void set_group_nice(struct mf_session *s, int nice)
{
    struct mf_session *none = NULL;
    int rc;

    if (nice == s->place.nice_now || getsid(0) != getpid())
        return;
    if (!atomic_compare_exchange_strong(&autogroup_owner, &none, s) && none != s)
        return;
    rc = write_group_nice(nice);
    if (rc == -EPERM && nice < s->place.group_nice) /* it takes CAP_SYS_NICE */
        rc = write_group_nice(nice = s->place.group_nice);
    if (rc != -EAGAIN)
        s->place.nice_now = nice;
    if (s->place.nice_now == s->place.group_nice)
        atomic_store(&autogroup_owner, NULL);
}

/*
 * While nothing comes the group keeps its weight: what else the program does would starve beside others, and no reader would
 * be kept waiting for that to be seen. It gives it up with the first request: given up under way by a group that clients keep
 * busy, these drift into one request per turn of the reader (8 clients did 0.86 of the calls, 32 0.78).
 *
 * A group that had next to no weight owes the others for what it ran while nobody else wanted to. Linux 6.18 places the
 * running group anew at each change of its share, and while it is owed much its virtual time then stands still: it
 * computes without end and never gets what it is owed, and the readers starve for seconds, whatever their nice value is
 * (seen in 8 of 360 samples beside others in the clients' session). With more weight that is not so.
 */
static int wanted_nice(const struct mf_session *s)
{
    int plain = s->place.catches_up ? s->place.group_nice - CATCH_UP : s->place.group_nice;

    if (atomic_load(&s->place_mode) != MF__PLACE_YIELDING || !s->place.lively)
        return plain < -20 ? -20 : plain;
    if (!s->place.watchful)
        return GROUP_NICE_UNWATCHED;
    return s->place.woken ? GROUP_NICE_WOKEN : GROUP_NICE;
}

static int group_nice(void)
{
    char text[64], *nice;

    if (mf__read_text("/proc/self/autogroup", text, sizeof(text)) < 0 || !(nice = strstr(text, "nice ")))
        return 0;
    return (int)strtol(nice + strlen("nice "), NULL, 10);
}

/* "cpu.weight" of 100, "cpu.shares" of 1024, and what is no group of its own have the share of any other process. */
static bool full_weight(const char *dir)
{
    static const struct {
        const char *file;
        unsigned usual;
    } weights[] = { { "cpu.weight", 100 }, { "cpu.shares", 1024 } };
    char path[512], text[32];
    uint64_t weight;

    for (size_t i = 0; i < MF__ARRAY_SIZE(weights); i++) {
        int n = snprintf(path, sizeof(path), "%s/%s", dir, weights[i].file);

        if (n < 0 || (size_t)n >= sizeof(path))
            return false;
        if (mf__read_text(path, text, sizeof(text)) == 0 && mf__read_numbers(text, &weight, 1) == 1)
            return weight >= weights[i].usual;
    }
    return true;
}

/* Each group from `path` up to the root of a hierarchy. */
static bool full_weights(const char *mounted, const char *path)
{
    char dir[512];
    int root = snprintf(dir, sizeof(dir), "%s", mounted);
    int n = snprintf(dir, sizeof(dir), "%s%s", mounted, path);

    if (root < 0 || n < root || (size_t)n >= sizeof(dir))
        return false;
    while (n > root + 1) {
        if (!full_weight(dir))
            return false;
        while (n > root && dir[--n] != '/')
            continue;
        dir[n] = '\0';
    }
    return true;
}

/*
 * Has this process the CPU share of any other, by its control groups? With less it may not get to run for seconds as
 * soon as others compute: too late to see that, and to do something about it.
 */
static bool ordinary_share(void)
{
    char text[4096], *line, *rest = text;
    bool full = true;

    if (mf__read_text("/proc/self/cgroup", text, sizeof(text)) < 0)
        return true; /* no control groups */
    while (full && (line = strsep(&rest, "\n"))) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!path)
            continue;
        *path++ = '\0';
        if (!strcmp(controllers, ":"))
            full = full_weights("/sys/fs/cgroup", path) && full_weights("/sys/fs/cgroup/unified", path);
        else if (!strcmp(controllers, ":cpu") || !strcmp(controllers, ":cpu,cpuacct"))
            full = full_weights("/sys/fs/cgroup/cpu", path);
    }
    return full;
}

static void set_mode(struct mf_session *s, uint32_t mode)
{
    s->place.since_ns = mf__now_ns();
    mf__crews_place(s, atomic_exchange(&s->place_mode, mode), mode);
    set_group_nice(s, wanted_nice(s));
    mf__logf(&s->log, MF_LOG_INFO, "readers %s",
             mode == MF__PLACE_YIELDING ? "yield to their clients"
             : mode == MF__PLACE_APART  ? "run apart from their clients"
                                        : "run as others");
}

/* What is in SCHED_IDLE may not get to run, and so not to leave it. Where that is permitted it is done from here. */
static void rouse(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__free_reader(s->readers[i]);
}

/* While requests come: there may be readers that wait for a CPU, and others to whom they owe some of it. */
static void stop_yielding(struct mf_session *s, uint32_t mode)
{
    s->place.catches_up = s->place.watchful && atomic_load(&s->place_mode) == MF__PLACE_YIELDING;
    set_mode(s, mode);
    rouse(s);
}

/* Ready to run, and not once on a CPU since the last look: that is not in its schedstat yet. */
static bool starved(struct mf__reader *r, const uint64_t at[3])
{
    return at[2] == r->turns && at[0] == r->ran_ns && !mf__task_sleeps(r);
}

/* Are the members of this crew placed at all? */
static bool placed(const struct mf_session *s, const struct mf__crew *c)
{
    return c->ring || s->place.on_device;
}

struct waits {
    uint64_t elapsed; /* ns since the last look; in that time: */
    uint64_t ns;      /* ready to run, and did not, though no other reader of the same CPU ran */
    uint64_t ran;     /* ns */
    uint64_t turns;
    uint64_t requests;
    uint64_t bytes;   /* of requests and answers */
    uint64_t behind;  /* requests that came while another one waited */
    uint64_t foreign; /* answers that other threads gave */
    uint64_t in_hand; /* requests that nobody has answered yet */
    uint32_t starved; /* readers that did not run at all, though they could */
    bool near;        /* all callers that were looked at are in the scheduling group of this process */
    bool spread;      /* requests came on all rings, much the same on each: clients are on all CPUs */
    bool unfit;       /* the session is not for yielding, whatever others do */
};

static void look_at_rings(struct mf_session *s, struct waits *w)
{
    uint64_t behind = 0, least = UINT64_MAX, most = 0;
    struct mf__ring_counts n;

    for (uint32_t i = 0; i < s->crew_count; i++) {
        struct mf__crew *c = &s->crews[i];
        uint64_t asked;

        if (!c->ring)
            continue;
        mf__ring_counts(c->ring, &n);
        behind += n.behind;
        asked = n.requests - c->asked;
        c->asked = n.requests;
        least = asked < least ? asked : least;
        most = asked > most ? asked : most;
    }
    w->behind = behind - s->place.behind;
    w->spread = s->ring_count && least >= most / 4;
    s->place.behind = behind;
}

/* One reader that is placed: what it adds to its crew's. */
static void look_at_reader(struct mf__reader *r, struct waits *w)
{
    uint64_t at[3];

    if (mf__task_schedstat(r, at) < 0)
        return;
    if (r->turns && starved(r, at)) {
        w->ns += w->elapsed;
        w->turns += 1;
        w->starved++;
    } else if (r->turns && at[2] >= r->turns) {
        w->ns += at[1] - r->waited_ns;
        w->ran += at[0] - r->ran_ns;
        w->turns += at[2] - r->turns;
    }
    r->ran_ns = at[0];
    r->waited_ns = at[1];
    r->turns = at[2];
}

/* Does /proc say the same of both? Where it says nothing of this process, of all. */
static bool same_text(const char *file, uint32_t tid)
{
    char path[64], own[1024], other[sizeof(own)];

    snprintf(path, sizeof(path), "/proc/self/%s", file);
    if (mf__read_text(path, own, sizeof(own)) < 0)
        return true;
    snprintf(path, sizeof(path), "/proc/%u/%s", tid, file);
    return mf__read_text(path, other, sizeof(other)) == 0 && !strcmp(own, other);
}

static bool near(struct mf__reader *r, uint32_t caller)
{
    if (caller != r->known_caller) {
        r->known_caller = caller;
        r->near = same_text("autogroup", caller) && same_text("cgroup", caller);
    }
    return r->near;
}

/* One caller for each reader: of the last request that was timed. */
static bool callers_near(struct mf_session *s)
{
    bool all = true, any = false;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint32_t caller = atomic_exchange_explicit(&r->caller, 0, memory_order_relaxed);

        any = any || caller;
        all = all && (!caller || near(r, caller));
    }
    return any && all;
}

/* The members of a ring's crew share one CPU: what one waits while another runs there is no work of others. */
static void look_at_crew(struct mf_session *s, struct mf__crew *c, struct waits *w)
{
    struct waits own = { .elapsed = w->elapsed };

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->crew) == c)
            look_at_reader(s->readers[i], &own);
    }
    if (c->ring && atomic_load(&c->members) > 1)
        own.ns -= own.ns < own.ran ? own.ns : own.ran;
    w->ns += own.ns;
    w->ran += own.ran;
    w->turns += own.turns;
    w->starved += own.starved;
}

/* Of all readers that are placed, within `elapsed` ns since the last look. */
static void look_at_waits(struct mf_session *s, uint64_t elapsed, struct waits *w)
{
    uint64_t requests = 0, bytes = 0, foreign = 0, answered = 0;

    *w = (struct waits){ .elapsed = elapsed };
    for (uint32_t i = 0; i < s->crew_count; i++) {
        if (placed(s, &s->crews[i]))
            look_at_crew(s, &s->crews[i], w);
    }
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        requests += atomic_load_explicit(&r->stats.requests, memory_order_relaxed);
        bytes += mf__reader_bytes(r);
        foreign += atomic_load_explicit(&r->foreign->replies, memory_order_relaxed);
        answered += atomic_load_explicit(&r->stats.replies, memory_order_relaxed) +
                    atomic_load_explicit(&r->stats.no_reply, memory_order_relaxed);
    }
    w->near = !s->place.on_device && callers_near(s);
    w->requests = requests - s->place.requests;
    w->bytes = bytes - s->place.bytes;
    w->foreign = foreign - s->place.foreign;
    w->in_hand = requests > answered + foreign ? requests - answered - foreign : 0;
    s->place.requests = requests;
    s->place.bytes = bytes;
    s->place.foreign = foreign;
}

/* ns since the start of the system in which CPUs had nothing to do, of all together. Waiting for a mount is iowait. */
static uint64_t idle_time(void)
{
    uint64_t times[5] = { 0 }; /* user, nice, system, idle, iowait */
    long hertz = sysconf(_SC_CLK_TCK);
    char text[256];

    if (mf__read_text("/proc/stat", text, sizeof(text)) == 0 && !strncmp(text, "cpu ", 4))
        (void)mf__read_numbers(text + 4, times, MF__ARRAY_SIZE(times));
    return (times[3] + times[4]) * (MF_SECOND / (hertz > 0 ? (uint64_t)hertz : 100));
}

static void begin_window(struct mf_session *s, uint64_t now_ns, uint64_t idle_ns)
{
    s->place.window_ns = now_ns;
    s->place.idle_ns = idle_ns;
    s->place.ran_ns = s->place.window_turns = 0;
}

static bool streams(const struct waits *w)
{
    return w->requests >= STREAM_REQUESTS && w->bytes >= w->requests * STREAM_BYTES;
}

/*
 * The clients compute beside a stream, other CPUs are idle, and: on a ring requests stand in line and wait for the CPU
 * that their client has; on the device one reader has time enough for all of them.
 */
static bool better_apart(struct mf_session *s, const struct waits *w)
{
    bool waits = w->behind > w->requests / 6 && w->ns > w->ran / 3;
    bool apart = streams(w) && (s->place.on_device ? w->ran < w->elapsed * 3 / 4 : waits);

    s->place.apart_looks = apart ? s->place.apart_looks + 1 : 0;
    if (apart && s->place.apart_proved && !w->spread)
        return true; /* as it was the last time */
    return s->place.apart_looks >= APART_LOOKS && s->place.clients_compute && s->place.idle_cpu;
}

/* Others compute as well, so that readers wait longer than they run: one of them alone would get less than all. */
static bool starved_apart(const struct waits *w)
{
    return w->requests >= STREAM_REQUESTS && w->ns > w->ran;
}

/*
 * What was a reason to run apart has ended, or has to be looked at again: what would be seen otherwise is not seen now.
 * Beside two clients, say, one reader of the device leaves a CPU idle, which two would use.
 */
static bool better_together(struct mf_session *s, const struct waits *w, uint64_t age)
{
    bool done = w->requests >= STREAM_REQUESTS && (!streams(w) || w->spread);
    bool full = s->place.on_device && w->ran > w->elapsed * 9 / 10;

    s->place.apart_proved = s->place.clients_compute && !s->place.on_device;
    return done || full || age > APART_NS || !s->place.clients_compute;
}

/* A client that waits for each answer. Of many that start at once some stand in line, and their start takes CPU time. */
static bool one_at_a_time(const struct waits *w)
{
    return w->requests <= w->turns * 5 / 4 && w->behind <= w->requests / 8;
}

/*
 * No CPU is idle, and the readers, who have work, are not the reason, or copy what their clients stream: there the
 * scheduler moves no client to an idle CPU, so that nothing is to be had by yielding. Looked at over some looks, since
 * idle time comes in steps, and over more where readers had little to do. But the longer readers count for nothing, the
 * likelier is one who computes to be moved to their CPU: if after a pause no CPU is idle while requests come one at a time,
 * the first look will do.
 */
static bool crowded(struct mf_session *s, const struct waits *w, uint64_t now_ns)
{
    uint64_t window = now_ns - s->place.window_ns;
    uint64_t capacity, idle_ns;
    bool none_idle;
    long cpus;

    s->place.ran_ns += w->ran;
    s->place.window_turns += w->turns;
    if (window < WINDOW_NS && !(s->place.first_look && one_at_a_time(w)))
        return s->place.crowded;
    idle_ns = idle_time();
    if (window < WINDOW_NS && idle_ns != s->place.idle_ns)
        return s->place.crowded;
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    capacity = window * (cpus > 0 ? (uint64_t)cpus : 1);
    idle_ns -= s->place.idle_ns;
    none_idle = idle_ns < capacity / 20;
    if (none_idle && s->place.window_turns <= ENOUGH_TURNS && window < LONG_WINDOW_NS)
        return s->place.crowded;
    s->place.idle_cpu = idle_ns > capacity / 5;
    s->place.full = idle_ns < capacity / 3;
    s->place.clients_compute = s->place.ran_ns * 3 / 2 + idle_ns < capacity;
    s->place.crowded = none_idle && s->place.window_turns && (streams(w) || s->place.ran_ns < capacity * 3 / 10);
    begin_window(s, now_ns, s->place.idle_ns + idle_ns);
    return s->place.crowded;
}

/* Does each request wake a reader of its own, as on the device, rather than stand in line for one of them? */
static bool a_reader_each(const struct mf_session *s)
{
    bool own = s->place.on_device;

    for (uint32_t i = 0; i < s->ring_count; i++)
        own = own || atomic_load(&s->rings[i]->calling) == MF__OWN_RINGS;
    return own;
}

/*
 * Others keep the readers, or the monitor itself, from a CPU. Where each request wakes a reader, these stand in line, too,
 * behind clients and each other: there it takes more, or a reader that did not run at all.
 */
static bool others_run(struct mf_session *s, const struct waits *w)
{
    bool among_them = s->place.woken && !w->starved && a_reader_each(s);
    uint64_t usual = w->requests * (among_them ? LONG_WAIT_WOKEN_NS : LONG_WAIT_NS) + w->bytes * WAIT_PER_BYTE_NS;
    bool waits = w->ns > (w->turns > ENOUGH_TURNS ? w->elapsed / 16 : w->elapsed / 2) && w->ns > usual;
    bool late = s->place.late_ns > w->elapsed / 2;

    s->place.late_ns = 0;
    s->place.long_looks = waits || late ? s->place.long_looks + 1 : 0;
    return s->place.long_looks >= LONG_LOOKS;
}

/* Whether others compute is to be seen only by trying, less often each time; the session's own doing always is. */
static void run_as_others(struct mf_session *s, const struct waits *w, uint64_t age)
{
    if (w->unfit || age > s->place.hold_ns)
        s->place.hold_ns = HOLD_NS;
    else if (age < TRIAL_NS && s->place.hold_ns < HOLD_MAX_NS)
        s->place.hold_ns *= 2;
    stop_yielding(s, MF__PLACE_PLAIN);
}

/*
 * Clients of the readers' own scheduling group call one at a time over a ring. The scheduler leaves them on their CPU anyway,
 * and a reader that is put off in the middle of its answer costs them a twentieth of their calls. More of them, whose requests
 * it takes at one go, gain by it as others do.
 */
static bool near_callers(const struct mf_session *s, const struct waits *w)
{
    return w->near && !s->place.woken && w->turns > ENOUGH_TURNS && one_at_a_time(w);
}

/*
 * The session's own doing: what handlers start cannot be set free; or other threads answer over a ring, whose readers commit
 * that: where the CPUs are full, or many clients wait, they wait for readers that stand back. On the device who answers
 * writes that himself, and readers had better stay on a CPU each: where the scheduler puts them decides there over a stat of
 * 15 or of 95 us beside 16,000 answers a second of one of Python's threads.
 */
static bool unfit(const struct mf_session *s, const struct waits *w)
{
    bool many_wait = w->in_hand > (uint64_t)MANY_IN_HAND * s->one_per_cpu;

    return s->place.given_up || near_callers(s, w) ||
           (!s->place.on_device && (s->place.full || many_wait) && w->foreign >= MANY_FOREIGN);
}

/* The session ends: who yields might wait for a CPU for many seconds, be it only to see that he is to leave. */
static void yield_no_more(struct mf_session *s)
{
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        stop_yielding(s, MF__PLACE_PLAIN);
}

/* `age`: ns for which it has been as it is. */
static void decide(struct mf_session *s, const struct waits *w, bool busy, uint64_t age)
{
    uint32_t mode = atomic_load(&s->place_mode);
    bool held = mode == MF__PLACE_PLAIN && age <= s->place.hold_ns;
    bool apart = mode != MF__PLACE_APART && better_apart(s, w) && !w->unfit;

    if (mode == MF__PLACE_APART && starved_apart(w)) {
        s->place.apart_proved = false;
        run_as_others(s, w, age);
    } else if (mode == MF__PLACE_APART && better_together(s, w, age)) {
        set_mode(s, MF__PLACE_YIELDING);
        begin_window(s, s->place.looked_ns, idle_time());
        s->place.idle_cpu = false;
    } else if (apart) {
        stop_yielding(s, MF__PLACE_APART);
    } else if (mode == MF__PLACE_YIELDING && (busy || w->unfit)) {
        run_as_others(s, w, age);
    } else if (mode == MF__PLACE_PLAIN && !held && !busy && !w->unfit && s->place.long_looks == 0 &&
               w->turns > ENOUGH_TURNS) {
        set_mode(s, MF__PLACE_YIELDING);
    }
}

void mf__placement_look(struct mf_session *s, uint64_t now_ns, uint64_t late_ns)
{
    uint32_t mode = atomic_load(&s->place_mode);
    uint64_t elapsed = now_ns - s->place.looked_ns;
    struct waits w;
    bool busy;

    s->place.late_ns += late_ns;
    if (!mode || elapsed < LOOK_NS)
        return;
    look_at_waits(s, elapsed, &w);
    look_at_rings(s, &w);
    s->place.woken = w.foreign >= MANY_FOREIGN || mf__handlers_wait(s);
    busy = others_run(s, &w);
    busy = crowded(s, &w, now_ns) || busy;
    w.unfit = unfit(s, &w);
    s->place.catches_up = s->place.catches_up && w.starved;
    set_group_nice(s, wanted_nice(s));
    if (mode == MF__PLACE_YIELDING) {
        mf__free_heirs(s);
        if (s->place.on_device)
            mf__crew_spread(s);
    }
    s->place.looked_ns = now_ns;
    s->place.first_look = false;
    if (atomic_load(&s->ending))
        yield_no_more(s);
    else
        decide(s, &w, busy, now_ns - s->place.since_ns);
}

static bool readers_rest(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (!mf__task_sleeps(s->readers[i]) || mf__may_have_heirs(s->readers[i]))
            return false;
    }
    return true;
}

/* The group has its own weight then. */
bool mf__placement_may_sleep(struct mf_session *s)
{
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING && !readers_rest(s))
        return false;
    s->place.lively = s->place.catches_up = false;
    set_group_nice(s, s->place.group_nice);
    return s->place.nice_now == s->place.group_nice;
}

/* From now on; nothing that went before counts. */
static void begin_looking(struct mf_session *s)
{
    s->place.looked_ns = mf__now_ns();
    s->place.late_ns = s->place.long_looks = 0;
    s->place.first_look = true;
    /* But a stream may go on after a pause, and CPUs that were idle may be so now. */
    s->place.crowded = s->place.full = false;
    begin_window(s, s->place.looked_ns, idle_time());
}

void mf__placement_resume(struct mf_session *s)
{
    struct waits w;

    if (!atomic_load(&s->place_mode))
        return;
    s->place.lively = true;
    set_group_nice(s, wanted_nice(s));
    look_at_waits(s, 0, &w);
    look_at_rings(s, &w);
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING && w.ns > LONG_WAKE_NS)
        run_as_others(s, &w, mf__now_ns() - s->place.since_ns);
    if (atomic_load(&s->place_mode) == MF__PLACE_APART)
        s->place.since_ns = mf__now_ns(); /* what read a stream may go on with it */
    begin_looking(s);
}

/* On the monitor's thread, before it watches. Threads that it makes do not inherit its class. */
void mf__placement_start(struct mf_session *s)
{
    struct sched_param first = { .sched_priority = 1 };

    if (!rings_placed(s) && !s->place.on_device)
        return;
    s->place.hold_ns = HOLD_NS;
    s->place.group_nice = s->place.nice_now = group_nice();
    s->place.lively = true;
    s->place.watchful = sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
    begin_looking(s);
    if (s->place.watchful || (ordinary_share() && !s->place.on_device))
        set_mode(s, MF__PLACE_YIELDING);
}

/* The group outlives this process where it has others: it gets its value back although the kernel takes one at a time. */
void mf__placement_stop(struct mf_session *s)
{
    const struct timespec nap = { .tv_nsec = 5000000 };

    yield_no_more(s);
    for (int i = 0; i < RESTORE_TRIES && atomic_load(&autogroup_owner) == s; i++) {
        nanosleep(&nap, NULL);
        set_group_nice(s, s->place.group_nice);
    }
}

/* May the process run on each of the CPUs? An administrator who chose some for it has his reasons. */
static bool has_all_cpus(const cpu_set_t *allowed, long cpus)
{
    for (long i = 0; i < cpus; i++) {
        if (!CPU_ISSET((size_t)i, allowed))
            return false;
    }
    return true;
}

bool mf__placement_of_device(const struct mf_session *s)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return !s->ring_count && s->opts.placement == MF_PLACEMENT_AUTO && cpus > 1 && s->one_per_cpu == (uint32_t)cpus &&
           s->channels[0]->ops->kind == MF_TRANSPORT_DEVICE && has_all_cpus(&s->allowed, cpus);
}

/* For the scheduler's class there are two. */
static uint32_t wanted_mode(const struct mf_session *s, const struct mf__crew *c)
{
    return placed(s, c) && atomic_load(&s->place_mode) == MF__PLACE_YIELDING ? MF__PLACE_YIELDING : MF__PLACE_PLAIN;
}

bool mf__placement_fits(const struct mf__reader *r, const struct mf__crew *c)
{
    return !atomic_load(&r->spent) || wanted_mode(r->session, c) == MF__PLACE_YIELDING;
}

/* Is one parked that is in SCHED_IDLE for good? */
static bool spent_one_waits(struct mf_session *s)
{
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count) && !found; i++)
        found = atomic_load(&s->readers[i]->spent) && atomic_load(&s->readers[i]->state) == MF__READER_PARKED &&
                !atomic_load(&s->readers[i]->crew);
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* The calling thread's. Out of SCHED_IDLE it may not be permitted. */
static bool set_class(int class)
{
    const struct sched_param param = { 0 };

    return sched_setscheduler(0, class, &param) == 0;
}

bool mf__placement_apply(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf_session *s = r->session;
    uint32_t mode = wanted_mode(s, c);

    if (mode == r->place_mode || (mode == MF__PLACE_PLAIN && r->place_mode == MF__PLACE_NONE))
        return true;
    if (mode == MF__PLACE_YIELDING && atomic_load(&s->place.one_way) && spent_one_waits(s))
        return false; /* else there would be more of them each time */
    if (set_class(mode == MF__PLACE_YIELDING ? SCHED_IDLE : SCHED_OTHER)) {
        r->place_mode = mode;
        return true;
    }
    if (mode == MF__PLACE_YIELDING)
        return true; /* not permitted: it serves as it is */
    atomic_store(&s->place.one_way, true);
    atomic_store(&r->spent, true);
    return false;
}

/*
 * The scheduler takes a CPU on which only readers that yield have work for an idle one. So it wakes a client there that has
 * waited for its handler, also where another one calls without pause and just now waits for its own answer, and leaves it
 * there, call after call: eight such clients on each CPU keep that one waiting, while another CPU is idle for most of the
 * time. For an ordinary thread's wake-up it looks for an idle CPU.
 */
bool mf__placement_step_up(struct mf__reader *r, const struct mf__slot *slot)
{
    struct mf__crew *c = atomic_load_explicit(&r->crew, memory_order_relaxed);

    if (!c || atomic_load_explicit(&c->rate, memory_order_relaxed) < RUSH || r->place_mode != MF__PLACE_YIELDING ||
        !r->session->place.watchful || atomic_load_explicit(&r->freed, memory_order_relaxed) ||
        mf__now_ns() - slot->received_ns < LONG_NS || !set_class(SCHED_OTHER))
        return false;
    atomic_fetch_add_explicit(&c->led, 1, memory_order_relaxed);
    return true;
}

void mf__placement_step_back(struct mf__reader *r)
{
    /* Where readers do so no more it must not: on a busy machine it might not get to run again to find out. */
    if (!atomic_load(&r->freed) && atomic_load(&r->session->place_mode) == MF__PLACE_YIELDING)
        (void)set_class(SCHED_IDLE);
}

#else

void mf__placement_start(struct mf_session *s)
{
    (void)s;
}

void mf__placement_stop(struct mf_session *s)
{
    (void)s;
}

bool mf__placement_may_sleep(struct mf_session *s)
{
    (void)s;
    return true;
}

void mf__placement_resume(struct mf_session *s)
{
    (void)s;
}

void mf__placement_look(struct mf_session *s, uint64_t now_ns, uint64_t late_ns)
{
    (void)s;
    (void)now_ns;
    (void)late_ns;
}

bool mf__placement_apply(struct mf__reader *r, const struct mf__crew *c)
{
    (void)r;
    (void)c;
    return true;
}

bool mf__placement_fits(const struct mf__reader *r, const struct mf__crew *c)
{
    (void)r;
    (void)c;
    return true;
}

bool mf__placement_step_up(struct mf__reader *r, const struct mf__slot *slot)
{
    (void)r;
    (void)slot;
    return false;
}

void mf__placement_step_back(struct mf__reader *r)
{
    (void)r;
}

bool mf__placement_of_device(const struct mf_session *s)
{
    (void)s;
    return false;
}

#endif
