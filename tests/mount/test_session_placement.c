/* SPDX-License-Identifier: MIT */
/* How readers of a real mount stand in the scheduler's eyes, and that nothing else comes to stand there. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "mount_site.h"

#define MAX_CPUS 8

static struct fs_rig rig;
static cpu_set_t all; /* where this process may run */

static void setup(void)
{
    site_begin();
    fs_init(&rig);
    rig.opts.uring = MF_URING_OFF;
    rig.opts.readers = 0;
    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    if (CPU_COUNT(&all) < 2 || CPU_COUNT(&all) > MAX_CPUS)
        cr_skip_test("needs 2 to 8 CPUs");
}

TestSuite(placement, .init = setup, .timeout = 180);

static bool may_yield(void)
{
    const struct sched_param fifo = { .sched_priority = 1 }, other = { 0 };
    bool may = sched_setscheduler(0, SCHED_FIFO, &fifo) == 0;

    return may && sched_setscheduler(0, SCHED_OTHER, &other) == 0;
}

static void skip_unless_readers_may_yield(void)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("ThreadSanitizer makes readers so slow that they seem to be kept waiting");
#endif
    if (!may_yield())
        cr_skip_test("needs the right to class SCHED_FIFO");
}

static void serve_yielding(void)
{
    skip_unless_readers_may_yield();
    site_serve(&rig);
}

static _Atomic bool let_go; /* what handlers wait for that stay */

static void end(void);

static void serve_yielding_on_rings(void)
{
    rig.opts.uring = MF_URING_AUTO;
    serve_yielding();
    if (rig.s->ring_count)
        return;
    end();
    cr_skip_test("needs the kernel's parameter enable_uring");
}

static void end(void)
{
    let_go = true;
    cr_expect_eq(fs_stop(&rig), 0, "%d", rig.result);
    cr_expect_not(site_mounted(), "the mount is still there");
    fs_end(&rig);
}

static bool like_a_reader(pid_t id)
{
    cpu_set_t set;

    return sched_getscheduler(id) == SCHED_IDLE && sched_getaffinity(id, sizeof(set), &set) == 0 &&
           CPU_COUNT(&set) == 1;
}

static bool like_any_other(pid_t id)
{
    cpu_set_t set;

    return sched_getscheduler(id) == SCHED_OTHER && sched_getaffinity(id, sizeof(set), &set) == 0 &&
           CPU_EQUAL(&set, &all);
}

static unsigned yielding(void)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++) {
        pid_t tid = (pid_t)atomic_load(&rig.s->readers[i]->tid);

        n += tid && like_a_reader(tid);
    }
    return n;
}

static void skip_busy(void)
{
    end();
    cr_skip_test("needs a machine that is quiet for a moment");
}

/* Readers do not yield while others keep the machine busy. Where they should, it is for the test to say what is wrong. */
static void skip_if_busy(void)
{
    if (atomic_load(&rig.s->place_mode) != MF__PLACE_YIELDING)
        skip_busy();
}

static uint64_t forty_seconds_from_now(void)
{
    return mf__now_ns() + 40 * MF_SECOND;
}

/* Seen once is seen: a reader that is kept waiting for a moment may end it again. */
#define WALK_UNTIL(condition)                                                                              \
    do {                                                                                                   \
        bool seen_ = (condition);                                                                          \
        for (uint64_t to_ = forty_seconds_from_now(); !seen_ && mf__now_ns() < to_; seen_ = (condition)) { \
            cr_assert_eq(site_run(site_walk, NULL), 0);                                                    \
            usleep(10000);                                                                                 \
        }                                                                                                  \
        if (!seen_)                                                                                        \
            skip_if_busy();                                                                                \
        cr_assert(seen_, "never: %s", #condition);                                                         \
    } while (0)

Test(placement, readers_of_the_device_yield_on_a_cpu_each)
{
    serve_yielding();
    WALK_UNTIL(yielding() == (unsigned)CPU_COUNT(&all));
    cr_expect(strstr(fs_info(&rig).placement, "a CPU each"), "%s", fs_info(&rig).placement);
    end();
}

/* 20: this session has none. */
static int session_nice(void)
{
    char text[64], *nice;

    if (getsid(0) != getpid() || mf__read_text("/proc/self/autogroup", text, sizeof(text)) < 0)
        return 20;
    nice = strstr(text, "nice ");
    return nice ? atoi(nice + strlen("nice ")) : 20;
}

/* The program's other threads would starve beside others. */
Test(placement, the_session_has_its_weight_back_while_nothing_comes)
{
    int before = session_nice();

    if (before == 20)
        cr_skip_test("needs kernel.sched_autogroup_enabled, and a session of its own");
    serve_yielding();
    for (int i = 0; i < 3; i++) {
        WALK_UNTIL(session_nice() > before);
        FS_UNTIL(session_nice() == before && atomic_load(&rig.s->monitor_asleep));
    }
    end();
    cr_expect_eq(session_nice(), before);
}

Test(placement, an_administrator_who_chose_cpus_has_his_way)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    }
    cr_assert_eq(sched_setaffinity(0, sizeof(one), &one), 0);
    site_serve(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    cr_expect_eq(yielding(), 0u);
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++) {
        cpu_set_t set;

        cr_assert_eq(sched_getaffinity((pid_t)atomic_load(&rig.s->readers[i]->tid), sizeof(set), &set), 0);
        cr_expect(CPU_EQUAL(&set, &one));
    }
    end();
}

Test(placement, free_is_free)
{
    rig.opts.placement = MF_PLACEMENT_FREE;
    site_serve(&rig);
    cr_expect_eq(site_run(site_walk, NULL), 0);
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++)
        cr_expect(like_any_other((pid_t)atomic_load(&rig.s->readers[i]->tid)));
    end();
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

#define BIG_SIZE (256u << 20)

static uint32_t big_files; /* of those that a walk reads */

static bool is_big(uint64_t node)
{
    return node == FS_SINK || (node >= FS_FILE0 && node < FS_FILE0 + big_files);
}

/* Some files are large, and cached by the kernel while they are open. */
static int32_t some_are_big(struct mf_call *call, struct fs_rig *r)
{
    int32_t rc;

    (void)r;
    if (!is_big(call->node) && call->op != MF_OP_LOOKUP)
        return FS_DEFAULT;
    if (call->op == MF_OP_READ) {
        call->answer.data_len = call->length;
        return 0;
    }
    rc = fs_answer(call, NULL);
    if (call->op == MF_OP_OPEN)
        call->answer.open_flags = 0;
    else if (rc == 0 && (call->op == MF_OP_GETATTR || is_big(call->answer.node)))
        call->answer.attr.size = BIG_SIZE;
    return rc;
}

struct stream {
    uint64_t node;
    cpu_set_t cpus; /* of its client */
};

static int read_stream(void *arg)
{
    static char buf[1 << 20];
    const struct stream *stream = arg;
    char path[SITE_PATH];
    int fd;

    if (sched_setaffinity(0, sizeof(stream->cpus), &stream->cpus) < 0)
        return errno;
    site_path(stream->node, path);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return errno;
    for (uint32_t at = 0; at < BIG_SIZE; at += sizeof(buf)) {
        if (read(fd, buf, sizeof(buf)) != sizeof(buf))
            return EIO;
    }
    return close(fd);
}

/* For longer than until the next look. */
static bool one_serves_all(const struct mf__crew *device)
{
    return device->members == 1 && strstr(fs_info(&rig).placement, "one of them serves all") &&
           mf__now_ns() - rig.s->place.since_ns > MF_SECOND / 10;
}

Test(placement, one_reader_of_the_device_serves_a_stream)
{
    struct stream stream = { FS_SINK, all };
    struct mf__crew *device;
    bool one = false;

    rig.script = some_are_big;
    serve_yielding();
    WALK_UNTIL(yielding() == (unsigned)CPU_COUNT(&all));
    device = &rig.s->crews[0];
    for (uint64_t to = forty_seconds_from_now(); !one && mf__now_ns() < to;) {
        cr_assert_eq(site_run(read_stream, &stream), 0);
        one = one_serves_all(device);
    }
    if (!one && atomic_load(&rig.s->place_mode) == MF__PLACE_PLAIN)
        skip_if_busy();
    cr_expect(one, "%u members; %s", (unsigned)device->members, fs_info(&rig).placement);
    WALK_UNTIL(yielding() == (unsigned)CPU_COUNT(&all));
    end();
}

/* For some seconds. */
static int read_streams(void *arg)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < 16; i++)
        rc = read_stream(arg);
    return rc;
}

static uint32_t start_on_each_cpu(pid_t pids[MAX_CPUS])
{
    uint32_t n = 0;

    for (int i = 0; n < (uint32_t)CPU_COUNT(&all); i++) {
        struct stream stream = { .node = FS_FILE0 + n };

        CPU_ZERO(&stream.cpus);
        CPU_SET(i, &stream.cpus);
        if (CPU_ISSET(i, &all))
            pids[n++] = site_start(read_streams, &stream);
    }
    return n;
}

/* What was right for one stream ends with it, not a second later: no CPU is free for readers of their own. */
Test(placement, readers_of_rings_serve_streams_on_all_cpus_together)
{
    struct stream stream = { FS_SINK, all };
    pid_t pids[MAX_CPUS];
    uint64_t started;
    uint32_t n;

    rig.script = some_are_big;
    big_files = MAX_CPUS;
    serve_yielding_on_rings();
    for (uint64_t to = forty_seconds_from_now();
         atomic_load(&rig.s->place_mode) != MF__PLACE_APART && mf__now_ns() < to;)
        cr_assert_eq(site_run(read_stream, &stream), 0);
    if (atomic_load(&rig.s->place_mode) != MF__PLACE_APART)
        skip_busy();
    n = start_on_each_cpu(pids);
    started = mf__now_ns();
    while (atomic_load(&rig.s->place_mode) == MF__PLACE_APART && mf__now_ns() < started + 2 * MF_SECOND)
        usleep(10000);
    cr_expect_lt(mf__now_ns() - started, MF_SECOND / 2);
    for (uint32_t i = 0; i < n; i++)
        cr_expect_eq(site_end(pids[i]), 0);
    end();
}

/* ---- one caller of this session -------------------------------------------------------------------------------- */

static int stat_for_some_looks(void *in_own_session)
{
    uint64_t end_ns = mf__now_ns() + MF_SECOND / 5;
    char path[SITE_PATH];
    struct stat st;

    if (in_own_session && setsid() < 0)
        return errno;
    site_path(FS_FILE0, path);
    while (mf__now_ns() < end_ns) {
        if (stat(path, &st) < 0)
            return errno;
    }
    return 0;
}

static bool becomes(uint32_t mode, bool own_session)
{
    uint64_t to = mf__now_ns() + 10 * MF_SECOND;

    while (atomic_load(&rig.s->place_mode) != mode && mf__now_ns() < to)
        cr_assert_eq(site_run(stat_for_some_looks, own_session ? &rig : NULL), 0);
    return atomic_load(&rig.s->place_mode) == mode;
}

/* The scheduler leaves it on its CPU anyway, and the reader need not be there before it has slept. */
Test(placement, readers_of_rings_yield_to_strangers_and_not_to_one_caller_of_their_session)
{
    bool stands_back = true;

    serve_yielding_on_rings();
    for (int i = 0; i < 2 && stands_back; i++) {
        stands_back = becomes(MF__PLACE_YIELDING, true);
        if (stands_back && access("/proc/self/autogroup", R_OK) == 0)
            cr_expect(becomes(MF__PLACE_PLAIN, false), "%s", fs_info(&rig).placement);
    }
    if (!stands_back)
        skip_busy();
    end();
}

/* ---- without the right to leave SCHED_IDLE ---------------------------------------------------------------------- */

static void give_up_nice(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];
    struct rlimit none = { 0 };

    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_SYS_NICE);
    data[0].permitted &= ~(1u << CAP_SYS_NICE);
    cr_assert_eq(syscall(SYS_capset, &header, data), 0);
    cr_assert_eq(setrlimit(RLIMIT_NICE, &none), 0);
}

struct kept_getattr {
    struct mf_req *req;
    uint64_t node;
    uint64_t due_ns;
};
static int kept_pipe[2];
static _Atomic uint64_t answered_after_ns;

static int32_t keep_getattr(struct mf_call *call, struct fs_rig *r)
{
    struct kept_getattr kept = { call->req, call->node, mf__now_ns() + answered_after_ns };

    (void)r;
    if (call->op != MF_OP_GETATTR || call->node == MF_ROOT || mf_req_defer(call->req) < 0)
        return FS_DEFAULT;
    cr_assert_eq(write(kept_pipe[1], &kept, sizeof(kept)), (ssize_t)sizeof(kept));
    return MF_ANSWER_LATER;
}

static void *answer_kept(void *arg)
{
    struct kept_getattr kept;

    while (read(kept_pipe[0], &kept, sizeof(kept)) == sizeof(kept) && kept.req) {
        struct mf_attr attr = fs_attr(kept.node);

        for (uint64_t now = mf__now_ns(); now < kept.due_ns; now = mf__now_ns())
            usleep((useconds_t)((kept.due_ns - now) / 1000 + 1));
        (void)mf_reply_attr(kept.req, &attr, 0);
    }
    return arg;
}

static int stat_often(void *arg)
{
    char path[SITE_PATH];
    struct stat st;

    (void)arg;
    site_path(FS_FILE0, path);
    for (int i = 0; i < 2000; i++) {
        if (stat(path, &st) < 0)
            return errno;
    }
    return 0;
}

/* Readers that yield and those that do not are others then; who yields keeps its CPU. */
static bool others_serve(void)
{
    unsigned idle = 0, members = 0;

    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++) {
        struct mf__reader *r = rig.s->readers[i];
        struct mf__crew *c = atomic_load(&r->crew);
        pid_t tid = (pid_t)atomic_load(&r->tid);

        if (atomic_load(&r->spent) && tid)
            idle += like_a_reader(tid);
        else if (c && c->ring && tid)
            members += sched_getscheduler(tid) == SCHED_OTHER;
    }
    return idle > 0 && members > 0 && atomic_load(&rig.s->place_mode) == MF__PLACE_PLAIN;
}

static pthread_t answerer;

/* Another thread gives the answers. Where there is no ring the end skips the test. */
static void serve_answered_by_others(void)
{
    cr_assert_eq(pipe(kept_pipe), 0);
    cr_assert_eq(pthread_create(&answerer, NULL, answer_kept, NULL), 0);
    rig.opts.uring = MF_URING_AUTO;
    rig.script = keep_getattr;
    site_serve(&rig);
}

static void end_answered_by_others(void)
{
    const struct kept_getattr last = { 0 };
    bool none = !rig.s->ring_count;

    cr_assert_eq(write(kept_pipe[1], &last, sizeof(last)), (ssize_t)sizeof(last));
    pthread_join(answerer, NULL); /* who answers must be done before the session is freed */
    end();
    if (none)
        cr_skip_test("needs the fuse module's parameter enable_uring to be on");
}

static int compute(void *arg)
{
    while (getppid() != 1)
        continue;
    return arg != NULL;
}

/* One for each CPU, at the weight of any other process. */
static void start_computing(pid_t *hogs, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        hogs[i] = site_start(compute, NULL);
}

static void end_computing(const pid_t *hogs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        kill(hogs[i], SIGKILL);
        cr_expect_eq(site_end(hogs[i]), SITE_KILLED + SIGKILL);
    }
}

Test(placement, who_may_not_leave_sched_idle_is_replaced)
{
    unsigned cpus = (unsigned)CPU_COUNT(&all);
    uint64_t to = forty_seconds_from_now();
    pid_t hogs[MAX_CPUS];

    give_up_nice();
    serve_answered_by_others();
    do
        cr_assert_eq(site_run(stat_often, NULL), 0);
    while (rig.s->ring_count && !yielding() && mf__now_ns() < to); /* one whom the machine kept waiting tries again */
    to = forty_seconds_from_now();
    start_computing(hogs, rig.s->ring_count ? cpus : 0); /* readers yield no more */
    while (rig.s->ring_count && !others_serve() && mf__now_ns() < to)
        cr_assert_eq(site_run(stat_often, NULL), 0);
    end_computing(hogs, rig.s->ring_count ? cpus : 0);
    cr_expect(!rig.s->ring_count || others_serve(), "%s", fs_info(&rig).placement);
    end_answered_by_others();
}

static int stat_by(unsigned clients)
{
    pid_t pids[4 * MAX_CPUS];
    int rc = 0;

    for (unsigned i = 0; i < clients; i++)
        pids[i] = site_start(stat_often, NULL);
    for (unsigned i = 0; i < clients; i++)
        rc |= site_end(pids[i]);
    return rc;
}

/* For half a second at a stretch: they would stop within two looks, and begin again after ten. */
static bool yields_on(void)
{
    uint64_t to = mf__now_ns() + MF_SECOND / 2;

    while (yielding() && mf__now_ns() < to)
        cr_assert_eq(stat_by(1), 0);
    return yielding() > 0;
}

static bool comes_to_yield(uint64_t to)
{
    bool yielded = false;

    while (!yielded && mf__now_ns() < to) {
        cr_assert_eq(stat_by(1), 0);
        yielded = yields_on();
    }
    return yielded;
}

static bool stops_yielding(uint64_t to)
{
    bool stopped = false;

    while (!stopped && mf__now_ns() < to) {
        cr_assert_eq(stat_by(4 * (unsigned)CPU_COUNT(&all)), 0);
        stopped = atomic_load(&rig.s->place_mode) == MF__PLACE_PLAIN;
    }
    return stopped;
}

/* First to one client, and then to many, each answer after so long. All within half a minute. */
static bool yields_until_many_wait(uint64_t after_ns)
{
    bool stopped = false;

    if (comes_to_yield(mf__now_ns() + 12 * MF_SECOND)) {
        answered_after_ns = after_ns;
        stopped = stops_yielding(mf__now_ns() + 12 * MF_SECOND);
        answered_after_ns = 0;
    } else {
        rig.script = NULL; /* on a machine that is busy they would not, whoever answers */
        if (!comes_to_yield(mf__now_ns() + 12 * MF_SECOND))
            skip_busy();
    }
    return stopped;
}

/*
 * The readers commit what other threads answer: late, if they yield and the CPUs are full. One client fills no CPU. Many that
 * wait for one who takes his time do not either, but they are many.
 */
Test(placement, readers_yield_though_others_answer_unless_many_wait)
{
    skip_unless_readers_may_yield();
    serve_answered_by_others();
    if (rig.s->ring_count) {
        cr_expect(yields_until_many_wait(0), "%s", fs_info(&rig).placement);
        cr_expect(yields_until_many_wait(MF_SECOND / 1000), "%s", fs_info(&rig).placement);
    }
    end_answered_by_others();
}

/* ---- what handlers start --------------------------------------------------------------------------------------- */

static struct {
    pthread_t thread;
    _Atomic pid_t tid, child;
    _Atomic bool inherited; /* it began as a reader */
    _Atomic bool leave;
} heir;

static void *heir_main(void *arg)
{
    heir.tid = (pid_t)syscall(SYS_gettid);
    while (!heir.leave)
        usleep(1000);
    return arg;
}

static int32_t start_thread(struct mf_call *call, struct fs_rig *r)
{
    (void)call;
    (void)r;
    if (heir.tid || pthread_create(&heir.thread, NULL, heir_main, NULL) != 0)
        return FS_DEFAULT;
    while (!heir.tid)
        usleep(100);
    heir.inherited = like_a_reader(heir.tid);
    if (!heir.inherited) {
        heir.leave = true;
        pthread_join(heir.thread, NULL);
        heir.leave = false;
        heir.tid = 0;
    }
    return FS_DEFAULT;
}

Test(placement, a_thread_that_a_handler_starts_is_set_free)
{
    rig.script = start_thread;
    serve_yielding();
    WALK_UNTIL(heir.inherited);
    FS_UNTIL(like_any_other(heir.tid));
    heir.leave = true;
    pthread_join(heir.thread, NULL);
    end();
}

static int32_t start_program(struct mf_call *call, struct fs_rig *r)
{
    char *const argv[] = { "sleep", "30", NULL };
    char *const env[] = { NULL };
    pid_t pid;

    (void)call;
    (void)r;
    if (heir.child || posix_spawn(&pid, "/bin/sleep", NULL, NULL, argv, env) != 0)
        return FS_DEFAULT;
    heir.inherited = like_a_reader(pid);
    if (heir.inherited) {
        heir.child = pid;
    } else {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    return FS_DEFAULT;
}

Test(placement, a_program_that_a_handler_runs_is_set_free)
{
    rig.script = start_program;
    serve_yielding();
    WALK_UNTIL(heir.inherited);
    FS_UNTIL(like_any_other(heir.child));
    kill(heir.child, SIGKILL);
    waitpid(heir.child, NULL, 0);
    end();
}

static _Atomic pid_t in_handler;

static int32_t stay(struct mf_call *call, struct fs_rig *r)
{
    pid_t self = (pid_t)syscall(SYS_gettid);

    (void)call;
    (void)r;
    if (in_handler || !like_a_reader(self))
        return FS_DEFAULT;
    in_handler = self;
    while (!let_go)
        usleep(1000);
    return FS_DEFAULT;
}

/* While it is in there its thread is no reader's. Afterwards it is, or it is parked and another has taken its place. */
Test(placement, a_long_handler_runs_like_any_other_thread)
{
    pid_t client[200];
    unsigned n = 0;

    rig.script = stay;
    serve_yielding();
    while (!in_handler && n < 200) {
        client[n++] = site_start(site_walk, NULL);
        usleep(50000);
    }
    if (!in_handler)
        skip_if_busy();
    cr_assert(in_handler);
    FS_UNTIL(like_any_other(in_handler));
    let_go = true;
    while (n > 0)
        cr_expect_eq(site_end(client[--n]), 0);
    WALK_UNTIL(yielding() >= (unsigned)CPU_COUNT(&all));
    end();
}

static int32_t stay_in_statfs(struct mf_call *call, struct fs_rig *r)
{
    (void)r;
    if (call->op != MF_OP_STATFS)
        return FS_DEFAULT;
    in_handler = (pid_t)syscall(SYS_gettid);
    while (!let_go)
        usleep(1000);
    return FS_DEFAULT;
}

static int stat_filesystem(void *arg)
{
    struct statfs st;

    (void)arg;
    return statfs(site_point, &st) < 0 ? errno : 0;
}

/* Has each CPU a reader that yields there? */
static bool each_cpu_served(void)
{
    cpu_set_t served;

    CPU_ZERO(&served);
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++) {
        pid_t tid = (pid_t)atomic_load(&rig.s->readers[i]->tid);
        cpu_set_t set;

        if (tid && like_a_reader(tid) && atomic_load(&rig.s->readers[i]->crew) &&
            sched_getaffinity(tid, sizeof(set), &set) == 0)
            CPU_OR(&served, &served, &set);
    }
    return CPU_EQUAL(&served, &all);
}

/* One handler that does not come back takes its reader's CPU from nobody; nor does its coming back. */
Test(placement, a_stuck_reader_leaves_no_cpu_without_one)
{
    pid_t client;

    rig.script = stay_in_statfs;
    serve_yielding();
    WALK_UNTIL(each_cpu_served());
    client = site_start(stat_filesystem, NULL);
    FS_UNTIL(in_handler);
    WALK_UNTIL(like_any_other(in_handler) && each_cpu_served());
    let_go = true;
    cr_expect_eq(site_end(client), 0);
    WALK_UNTIL(each_cpu_served() && atomic_load(&rig.s->crews[0].members) == (unsigned)CPU_COUNT(&all));
    end();
}
