/* SPDX-License-Identifier: MIT */
/* Sessions on rings: which transport is chosen and why, who serves, blocked handlers, late answers, ends. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "test_ring.h"

static struct fs_rig rig;

static void setup(void)
{
    ring_setup(&rig, 2, 0);
}

TestSuite(ring_session, .init = setup, .timeout = 60);

/* ---- the choice ------------------------------------------------------------------------------------------ */

FS_TEST(ring_session, requests_come_over_rings)
{
    struct mf_info info;

    rig.opts.uring = MF_URING_AUTO;
    fs_run(&rig);
    ring_try_all(&rig);
    ring_right_read(&rig, FS_FILE0 + 7, 100000);
    info = fs_info(&rig);
    cr_expect_eq(info.transport, MF_TRANSPORT_URING);
    cr_expect_str_eq(info.transport_reason, "the kernel offers io_uring: 2 rings for 2 queues");
    cr_expect_eq(ring_delivered(&rig), 3);
    cr_expect_eq(mf_vkernel_reads(rig.vk, 0), 1, "INIT, and nothing else, came on the device");
    cr_expect(rig.s->terms.flags & FUSE_OVER_IO_URING);
}

static void expect_device(const char *why)
{
    struct mf_info info = fs_info(&rig);

    cr_expect_eq(info.transport, MF_TRANSPORT_MEMORY);
    cr_expect(strstr(info.transport_reason, why), "%s", info.transport_reason);
    cr_expect_not(rig.s->terms.flags & FUSE_OVER_IO_URING);
    cr_expect_eq(rig.s->ring_count, 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
    cr_expect_eq(ring_getattr(&rig, FS_FILE0), 0);
}

static void not_required(const char *why)
{
    rig.opts.uring = MF_URING_AUTO;
    fs_run(&rig);
    expect_device(why);
}

FS_TEST(ring_session, not_where_it_is_off)
{
    rig.opts.uring = MF_URING_OFF;
    fs_run(&rig);
    expect_device("off by option");
}

FS_TEST(ring_session, not_where_none_is_offered)
{
    rig.kernel.queues = 0;
    not_required("in memory");
}

FS_TEST(ring_session, not_on_older_kernels)
{
    rig.kernel.minor = 41;
    not_required("does not offer it");
}

FS_TEST(ring_session, not_for_one_reader)
{
    rig.opts.readers = 1;
    not_required("one reader was asked for");
}

FS_TEST(ring_session, not_beside_clones)
{
    rig.opts.readers = 2;
    rig.opts.clone_fd = MF_CLONE_REQUIRE;
    not_required("clones of the device are required");
}

FS_TEST(ring_session, not_on_the_callers_thread)
{
    rig.opts.readers = 1;
    rig.opts.flags = MF_OPT_INLINE;
    not_required("the calling thread");
}

/* ---- systems that refuse --------------------------------------------------------------------------------- */

static int no_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    (void)kernel;
    (void)entries;
    (void)p;
    return -EPERM;
}

static uint32_t no_queues(void *kernel)
{
    (void)kernel;
    return 0;
}

static int no_sqes(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    return offset ? -ENOMEM : mf__vk_calls.map(kernel, fd, size, offset, out);
}

static int no_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    (void)kernel;
    (void)fd;
    (void)size;
    (void)offset;
    (void)out;
    return -EACCES;
}

static int no_file(void *kernel, int fd, struct mf__channel *device)
{
    (void)kernel;
    (void)fd;
    (void)device;
    return -EMFILE;
}

static const struct {
    const char *why;
    int error;
    struct mf__uring_sys sys; /* what is NULL is as usual */
} refusals[] = {
    { "io_uring_setup is refused here: Operation not permitted", -EPERM, { .setup = no_setup } },
    { "the number of possible CPUs is not known", -ENOTSUP, { .queues = no_queues } },
    { "no rings: Cannot allocate memory", -ENOMEM, { .map = no_sqes } },
    { "no rings: Permission denied", -EACCES, { .map = no_map } },
};

static void complete(struct mf__uring_sys *sys)
{
    const struct mf__uring_sys *usual = &mf__vk_calls;

    sys->queues = sys->queues ? sys->queues : usual->queues;
    sys->setup = sys->setup ? sys->setup : usual->setup;
    sys->enter = sys->enter ? sys->enter : usual->enter;
    sys->attach = sys->attach ? sys->attach : usual->attach;
    sys->map = sys->map ? sys->map : usual->map;
    sys->unmap = sys->unmap ? sys->unmap : usual->unmap;
    sys->close = sys->close ? sys->close : usual->close;
    sys->over = sys->over ? sys->over : usual->over;
}

FS_TEST(ring_session, a_system_that_refuses_leaves_the_device)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(refusals); i++) {
        struct mf__uring_sys sys = refusals[i].sys;
        struct mf_error err = { .size = sizeof(err) };

        complete(&sys);
        ring_setup(&rig, 3, 0);
        rig.opts.uring = MF_URING_AUTO;
        fs_prepare(&rig);
        mf__vk_set_uring(rig.vk, &sys);
        cr_assert_eq(mf_session_attach_vkernel(rig.s, rig.vk, &err), 0, "%s", err.text);
        fs_run(&rig);
        expect_device(refusals[i].why);
        if (i + 1 < MF__ARRAY_SIZE(refusals))
            fs_end(&rig);
    }
}

Test(ring_session, a_system_that_refuses_what_is_required_is_an_error)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(refusals); i++) {
        struct mf__uring_sys sys = refusals[i].sys;
        struct mf_error err = { .size = sizeof(err) };

        complete(&sys);
        ring_setup(&rig, 3, 0);
        fs_prepare(&rig);
        mf__vk_set_uring(rig.vk, &sys);
        cr_expect_eq(mf_session_attach_vkernel(rig.s, rig.vk, &err), refusals[i].error);
        cr_expect(strstr(err.text, "io_uring is required but cannot be used"), "%s", err.text);
        cr_expect(strstr(err.text, refusals[i].why), "%s", err.text);
        cr_expect_eq(mf__vk_urings(rig.vk), 0);
        mf_session_free(rig.s);
        mf_vkernel_free(rig.vk);
    }
}

static void expect_fallen_back(const char *why)
{
    struct mf_info info;

    FS_UNTIL(fs_info(&rig).transport == MF_TRANSPORT_MEMORY);
    info = fs_info(&rig);
    cr_expect(strstr(info.transport_reason, "the kernel refused the ring's entries"), "%s", info.transport_reason);
    cr_expect(strstr(info.transport_reason, why), "%s", info.transport_reason);
    cr_expect_eq(fs_logged(&rig, "requests come on the device"), 1);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
    cr_expect_eq(ring_delivered(&rig), 0);
    for (uint32_t i = 0; i < rig.s->ring_count; i++)
        FS_UNTIL(atomic_load(&rig.s->crews[1 + i].members) == 0);
}

/* The handshake, then faults, then readers. */
static void run_with(struct mf__vk_fault fault)
{
    fs_connect(&rig);
    mf__vk_set_fault(rig.vk, &fault);
    fs_run(&rig);
}

FS_TEST(ring_session, refused_entries_leave_the_device)
{
    uint64_t ids[4];
    uint32_t readers;

    run_with((struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .count = UINT32_MAX, .error = -EOPNOTSUPP });
    expect_fallen_back("not supported");
    readers = fs_info(&rig).readers;
    usleep(100000);
    cr_expect_eq(fs_info(&rig).readers, readers, "readers are made for rings that nobody serves");
    /* All readers serve the device now. */
    for (int i = 0; i < 3; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 3));
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 3; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

/* Every other queue has an entry, and would wait for requests for ever. */
FS_TEST(ring_session, one_refused_queue_is_enough)
{
    rig.kernel.queues = 5;
    run_with((struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .skip = 0, .count = 1, .error = -ENOMEM });
    /* Which of a ring's entries it hits is chance: where it is the only one of its queue, the mount falls back. */
    for (int i = 0; i < 20; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
}

FS_TEST(ring_session, a_file_that_cannot_be_attached_leaves_the_device)
{
    struct mf__uring_sys sys = { .attach = no_file };
    struct mf_error err = { .size = sizeof(err) };

    complete(&sys);
    rig.opts.uring = MF_URING_AUTO;
    fs_prepare(&rig);
    mf__vk_set_uring(rig.vk, &sys);
    cr_assert_eq(mf_session_attach_vkernel(rig.s, rig.vk, &err), 0, "%s", err.text);
    /* Nothing was registered, so nothing tells the kernel: but no request came either. */
    fs_run(&rig);
    FS_UNTIL(fs_info(&rig).transport == MF_TRANSPORT_MEMORY);
    cr_expect(strstr(fs_info(&rig).transport_reason, "Too many open files"));
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(ring_session, some_refused_entries_do_no_harm)
{
    rig.kernel.queues = 2;
    rig.opts.readers = 2;
    /* Each ring's first entry is good, or else the rest of them do not matter. */
    run_with((struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .skip = 10, .count = 30, .error = -ENOMEM });
    for (int i = 0; i < 100; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
    cr_expect_eq(fs_info(&rig).transport, MF_TRANSPORT_URING);
    FS_UNTIL(ring_idle(&rig) == 2 * MF__RING_DEPTH - 30);
}

FS_TEST(ring_session, commands_that_must_be_repeated_are)
{
    run_with((struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .skip = 1, .count = 20, .error = -EAGAIN });
    ring_try_all(&rig);
    mf__vk_set_fault(rig.vk,
                     &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH, .count = 3, .error = -EINTR });
    ring_try_all(&rig);
    mf__vk_set_fault(rig.vk,
                     &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH, .count = 3, .error = -EAGAIN });
    ring_try_all(&rig);
    FS_UNTIL(ring_idle(&rig) == 2 * MF__RING_DEPTH);
}

/* ---- who serves ------------------------------------------------------------------------------------------ */

static int32_t only_one(struct mf_call *c, struct fs_rig *r)
{
    (void)c;
    cr_expect_eq(atomic_load(&r->inside), 1, "two handlers in a session with one reader");
    usleep(100);
    return FS_DEFAULT;
}

FS_TEST(ring_session, one_reader_runs_one_handler)
{
    uint64_t ids[40];

    rig.kernel.queues = 4;
    rig.opts.readers = 1;
    rig.script = NULL;
    fs_run(&rig);
    ring_try_all(&rig);
    cr_expect_eq(rig.s->ring_count, 1);
    /* FORGETs on the device run in a reader of their own: `inside` counts them, too, so there are none here. */
    rig.script = only_one;
    for (int i = 0; i < 40; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    for (int i = 0; i < 40; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

static void so_many_at_once(uint32_t queues, uint32_t readers, uint32_t added, unsigned handlers)
{
    uint64_t ids[16];

    rig.kernel.queues = queues;
    rig.opts.readers = readers;
    fs_run(&rig);
    for (uint32_t i = 0; i < added; i++)
        cr_assert_gt(mf_session_add_reader(rig.s), 0);
    mf__vk_set_cpu(rig.vk, 0); /* all of them on one queue */
    for (unsigned i = 0; i < handlers; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_expect(fs_gate_await(&rig.gate, handlers), "%u of %u handlers run at once", rig.gate.waiting, handlers);
    fs_gate_open(&rig.gate);
    for (unsigned i = 0; i < handlers; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

FS_TEST(ring_session, two_readers_on_one_queue)
{
    so_many_at_once(1, 2, 0, 2);
}

FS_TEST(ring_session, each_queue_may_have_as_many_readers_as_were_asked_for)
{
    so_many_at_once(2, 3, 0, 3);
}

FS_TEST(ring_session, added_readers_serve_rings)
{
    so_many_at_once(2, 2, 2, 4);
}

FS_TEST(ring_session, with_an_added_reader_one_reader_is_two)
{
    so_many_at_once(2, 1, 1, 2);
}

FS_TEST(ring_session, fewer_readers_than_queues)
{
    rig.kernel.queues = 7;
    rig.opts.readers = 3;
    fs_run(&rig);
    for (int i = 0; i < 5; i++)
        ring_try_all(&rig);
    cr_expect_eq(rig.s->ring_count, 3);
    cr_expect_eq(ring_idle(&rig), 7 * MF__RING_DEPTH);
    cr_expect_str_eq(fs_info(&rig).transport_reason, "the kernel offers io_uring: 3 rings for 7 queues");
}

static size_t resident(void)
{
    size_t pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "re");

    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%zu %zu", &ignored, &pages), 2);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* What a machine with 128 possible CPUs costs a session, entries in use and threads included. */
#define BUDGET (8u << 20)

static void many_queues(uint32_t readers, uint32_t rings)
{
    size_t before, used;

    rig.kernel.queues = 128;
    rig.opts.readers = readers;
    before = resident();
    fs_run(&rig);
    ring_try_all(&rig);
    ring_right_read(&rig, FS_FILE0 + 20, 131072);
    cr_expect_eq(rig.s->ring_count, rings);
    cr_expect_geq(fs_info(&rig).readers, rings + 1);
    FS_UNTIL(ring_idle(&rig) == MF__RING_BUDGET);
    used = resident() - before;
    printf("128 queues, %u rings, %u entries: %zu KiB resident\n", rings, MF__RING_BUDGET, used / 1024);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    cr_expect_lt(used, BUDGET, "%zu bytes", used);
#endif
}

FS_TEST(ring_session, many_queues_fit_few_threads)
{
    many_queues(4, 4);
}

FS_TEST(ring_session, many_queues_fit_one_thread)
{
    many_queues(1, 1);
}

FS_TEST(ring_session, many_queues_fit_many_threads)
{
    many_queues(0, 128);
}

/* While nobody asks for more than one thing at a time, one entry of a queue does it all. */
FS_TEST(ring_session, the_last_used_entry_is_used_next)
{
    rig.kernel.queues = 1;
    fs_run(&rig);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
    cr_expect_eq(mf__vk_queue_look(rig.vk, 0).delivered, 100);
    cr_expect_eq(mf__vk_queue_look(rig.vk, 0).most_busy, 1);
}

/* Without MAX_PAGES a request may be of 32 pages, whatever max_write is: entries must have room for that. */
FS_TEST(ring_session, entries_have_room_for_the_kernels_default)
{
    rig.opts.max_write = 4096;
    rig.opts.unwant = FUSE_MAX_PAGES;
    fs_run(&rig);
    ring_try_all(&rig);
    ring_right_read(&rig, FS_FILE0 + 13, 131072);
}

static struct {
    pthread_mutex_t lock;
    struct mf_req *reqs[512];
    uint64_t nodes[512];
    _Atomic unsigned n;
    unsigned done;
    _Atomic bool end;
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int32_t keep(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op != MF_OP_GETATTR)
        return FS_DEFAULT;
    mf_req_defer(c->req);
    pthread_mutex_lock(&kept.lock);
    kept.nodes[kept.n] = c->node;
    kept.reqs[kept.n++] = c->req;
    pthread_mutex_unlock(&kept.lock);
    return MF_ANSWER_LATER;
}

static void *answer_late(void *arg)
{
    (void)arg;
    for (;;) {
        struct mf_req *req = NULL;
        struct mf_attr attr;
        uint64_t node = 0;
        bool end;

        pthread_mutex_lock(&kept.lock);
        end = kept.end;
        if (kept.done < kept.n) {
            node = kept.nodes[kept.done];
            req = kept.reqs[kept.done++];
        }
        pthread_mutex_unlock(&kept.lock);
        if (!req && end)
            return NULL;
        if (!req) {
            usleep(100);
            continue;
        }
        attr = fs_attr(node);
        cr_expect_eq(mf_reply_attr(req, &attr, 0), 0);
    }
}

FS_TEST(ring_session, answers_come_from_foreign_threads)
{
    pthread_t threads[3];
    uint64_t ids[300];

    rig.script = keep;
    fs_run(&rig);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, answer_late, NULL), 0);
    for (int i = 0; i < 300; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0 + (uint64_t)i % FS_FILES);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(fs_wait(&rig, ids[i]), 0);
    kept.end = true;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    rig.script = NULL;
    /* No entry was armed by a thread that is gone now. */
    for (int i = 0; i < 300; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
}

FS_TEST(ring_session, the_engine_answers_what_nobody_did)
{
    uint64_t ids[20];

    rig.script = keep;
    fs_run(&rig);
    for (int i = 0; i < 20; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept.n == 20);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
    for (int i = 0; i < 20; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), -ENOTCONN);
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(mf_reply_err(kept.reqs[i], EIO), -EALREADY);
}

/* ---- blocked handlers ------------------------------------------------------------------------------------ */

FS_TEST(ring_session, blocked_handlers_hold_up_nobody)
{
    uint64_t ids[24];

    fs_run(&rig);
    ring_try_all(&rig);
    for (int i = 0; i < 24; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 24), "%u of 24 handlers run at once", rig.gate.waiting);
    for (int i = 0; i < 50; i++)
        ring_try_all(&rig);
    cr_expect_gt(fs_info(&rig).growths, 0);
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 24; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

/* ---- rings of readers' own ------------------------------------------------------------------------------- */

static _Atomic bool waits_now;
static _Atomic bool did_not_step_back; /* a reader that yields, in a handler */

static int32_t wait_in_getattr(struct mf_call *c, struct fs_rig *r)
{
    bool up = mf__self->place_mode == MF__PLACE_YIELDING && sched_getscheduler(0) != SCHED_IDLE;

    (void)r;
    if (c->op == MF_OP_GETATTR && atomic_load(&waits_now))
        usleep(2000);
    if (up && !atomic_load(&mf__self->freed)) /* by the monitor, which says so afterwards */
        atomic_store(&did_not_step_back, true);
    return FS_DEFAULT;
}

static void eight_at_once(void)
{
    uint64_t ids[8];

    for (int i = 0; i < 8; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0 + (uint64_t)i);
    for (int i = 0; i < 8; i++)
        cr_assert_eq(fs_wait(&rig, ids[i]), 0);
}

/* Handlers wait until most requests come there. */
static void wait_for_own_rings(void)
{
    uint64_t before, n = 0;

    atomic_store(&waits_now, true);
    for (int i = 0; i < 2000 && n < 6; i++) {
        before = fs_on_own_rings(&rig);
        eight_at_once();
        n = fs_on_own_rings(&rig) - before;
    }
    cr_assert_geq(n, 6, "of 8 requests %llu came on rings of readers' own", (unsigned long long)n);
}

static void serve_on_own_rings(void)
{
    rig.script = wait_in_getattr;
    fs_run(&rig);
    wait_for_own_rings();
}

/* Of a language with a lock: handlers that had the turn, on the shared ring and on readers' own. */
static _Atomic unsigned turns[2];

static int32_t note_turn(struct mf_call *c, struct fs_rig *r)
{
    bool own = mf__self->current->io.own != NULL;

    if (atomic_load(&r->s->turn) == mf__self->index + 1)
        atomic_fetch_add(&turns[own], 1);
    return wait_in_getattr(c, r);
}

FS_TEST(ring_session, where_handlers_wait_they_take_no_turns)
{
    rig.script = note_turn;
    fs_connect(&rig);
    rig.s->hooks.flags |= MF_UPCALL_EXCLUSIVE;
    fs_run(&rig);
    FS_UNTIL(atomic_load(&rig.s->phase) == MF__RUNNING);
    if (!rig.s->takes_turns)
        cr_skip_test("with one CPU nobody waits for his turn awake");
    eight_at_once();
    cr_expect_gt(atomic_load(&turns[false]), 0);
    wait_for_own_rings();
    cr_expect_eq(atomic_load(&turns[true]), 0);
}

FS_TEST(ring_session, where_handlers_wait_readers_have_rings_of_their_own)
{
    serve_on_own_rings();
    ring_try_all(&rig);
    ring_right_read(&rig, FS_FILE0 + 7, 100000);
}

FS_TEST(ring_session, where_they_do_so_no_more_requests_come_on_the_shared_one)
{
    uint64_t before, n = 8;

    serve_on_own_rings();
    atomic_store(&waits_now, false);
    for (int i = 0; i < 20000 && n; i++) {
        before = fs_on_own_rings(&rig);
        for (int j = 0; j < 20; j++)
            eight_at_once();
        n = fs_on_own_rings(&rig) - before;
    }
    cr_expect_eq(n, 0);
    wait_for_own_rings(); /* they may again */
}

static uint64_t led_away(void)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < rig.s->ring_count; i++)
        sum += atomic_load(&rig.s->crews[1 + i].led);
    return sum;
}

static void eight_while_readers_yield(void)
{
    atomic_store(&rig.s->place_mode, MF__PLACE_YIELDING); /* whatever the machine is busy with */
    eight_at_once();
}

static bool may_leave_sched_idle(void)
{
    const struct sched_param none = { 0 };

    return sched_setscheduler(0, SCHED_IDLE, &none) == 0 && sched_setscheduler(0, SCHED_OTHER, &none) == 0;
}

FS_TEST(ring_session, who_has_waited_is_led_away_from_a_busy_queue)
{
    if (!may_leave_sched_idle())
        cr_skip_test("needs the right to leave class SCHED_IDLE");
    fs_connect(&rig);
    rig.s->place.watchful = true;
    serve_on_own_rings();
    for (int i = 0; i < 50; i++)
        eight_while_readers_yield();
    cr_expect_eq(led_away(), 0, "nobody calls without pause");
    for (int i = 0; i < 5000 && !led_away(); i++) {
        for (uint32_t c = 1; c < rig.s->crew_count; c++)
            atomic_store(&rig.s->crews[c].rate, 1000); /* until the monitor looks */
        eight_while_readers_yield();
    }
    cr_expect_gt(led_away(), 0);
    for (int i = 0; i < 50; i++)
        eight_while_readers_yield();
    cr_expect_not(did_not_step_back);
}

static void count_timed(uint64_t *timed, uint64_t *latencies)
{
    *timed = *latencies = 0;
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++) {
        struct mf__counters *c = &rig.s->readers[i]->stats;

        *timed += atomic_load(&c->timed);
        for (int b = 0; b < MF_STATS_BUCKETS; b++)
            *latencies += atomic_load(&c->latency[b]);
    }
}

/* For what is told of latencies all times count alike. */
FS_TEST(ring_session, there_all_handlers_are_timed_but_no_more_latencies_told)
{
    uint64_t timed, latencies, timed_then, latencies_then;

    serve_on_own_rings();
    count_timed(&timed_then, &latencies_then);
    for (int i = 0; i < 50; i++)
        eight_at_once();
    count_timed(&timed, &latencies);
    cr_expect_geq(timed - timed_then, 300, "%llu of 400", (unsigned long long)(timed - timed_then));
    cr_expect_leq(latencies - latencies_then, 400 / MF__LATENCY_SAMPLE + atomic_load(&rig.s->reader_count));
}

/* Of 8 handlers at once, for good; each queue has one request besides. */
FS_TEST(ring_session, what_is_too_much_for_own_rings_is_served)
{
    uint64_t ids[24];

    serve_on_own_rings();
    for (int i = 0; i < 24; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 24), "%u of 24 handlers run at once", rig.gate.waiting);
    for (int i = 0; i < 50; i++)
        ring_try_all(&rig);
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 24; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
}

FS_TEST(ring_session, foreign_threads_answer_what_came_on_own_rings)
{
    pthread_t thread;

    serve_on_own_rings();
    rig.script = keep;
    cr_assert_eq(pthread_create(&thread, NULL, answer_late, NULL), 0);
    for (int i = 0; i < 20; i++)
        eight_at_once();
    kept.end = true;
    pthread_join(thread, NULL);
    rig.script = NULL;
    for (int i = 0; i < 20; i++)
        eight_at_once();
}

FS_TEST(ring_session, unmounting_ends_readers_on_their_own_rings)
{
    serve_on_own_rings();
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
}

FS_TEST(ring_session, a_fork_leaves_own_rings_to_the_parent)
{
    int status;
    pid_t pid;

    serve_on_own_rings();
    pid = fork();
    if (pid == 0) {
        mf_session_free(rig.s);
        _exit(0);
    }
    cr_assert_gt(pid, 0);
    cr_expect_eq(waitpid(pid, &status, 0), pid);
    cr_expect_eq(status, 0);
    eight_at_once();
}

/* As a thread that cannot leave SCHED_IDLE does: its place is taken, also while the monitor sleeps. */
FS_TEST(ring_session, who_parks_himself_while_all_is_quiet_is_replaced)
{
    struct mf__reader *spare = NULL;
    uint64_t ids[8];

    fs_run(&rig);
    for (int i = 0; i < 8; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 8));
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 8; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    /* Members that are idle are let go while there is something to do. */
    for (int ms = 0; ms < 10000 && rig.s->crews[1].members + rig.s->crews[2].members > 2; ms++, usleep(1000))
        ring_try_all(&rig);
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count) && !spare; i++) {
        if (atomic_load(&rig.s->readers[i]->state) == MF__READER_PARKED && !atomic_load(&rig.s->readers[i]->crew))
            spare = rig.s->readers[i];
    }
    cr_assert_not_null(spare, "no reader was parked");
    FS_UNTIL(atomic_load(&rig.s->monitor_asleep));
    atomic_store(&spare->spent, true);
    atomic_store(&rig.s->place.one_way, true);
    atomic_store(&rig.s->place_mode, MF__PLACE_YIELDING);
    for (uint32_t i = 0; i < rig.s->ring_count; i++)
        rig.s->rings[i]->ops->wake(rig.s->rings[i]);
    ring_try_all(&rig);
}

/* More handlers that wait than a queue has entries: the rest waits in the kernel, and is served in the end. */
FS_TEST(ring_session, a_saturated_queue_drains)
{
    uint64_t ids[200];

    rig.script = keep;
    fs_run(&rig);
    mf__vk_set_cpu(rig.vk, 1);
    for (int i = 0; i < 200; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept.n == MF__RING_DEPTH);
    cr_expect_eq(mf__vk_queue_look(rig.vk, 1).pending, 200 - MF__RING_DEPTH);
    mf__vk_set_cpu(rig.vk, 0); /* the other queue is none the worse for it */
    rig.script = NULL;
    cr_expect_eq(ring_getattr(&rig, FS_FILE0), 0);
    for (unsigned i = 0; i < MF__RING_DEPTH; i++) {
        struct mf_attr attr = fs_attr(kept.nodes[i]);

        cr_expect_eq(mf_reply_attr(kept.reqs[i], &attr, 0), 0);
    }
    for (int i = 0; i < 200; i++)
        cr_assert_eq(fs_wait(&rig, ids[i]), 0);
}

/* Those who waited for the mount come all at once. None may be left behind by entries that are registered later. */
static void early_birds(uint32_t queues, int32_t cpu)
{
    uint64_t ids[24];

    rig.kernel.queues = queues;
    fs_connect(&rig);
    mf__vk_set_cpu(rig.vk, cpu);
    fs_run(&rig);
    for (int i = 0; i < 24; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 24), "%u of 24 handlers run at once", rig.gate.waiting);
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 24; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

FS_TEST(ring_session, early_clients_of_the_last_queue_are_served)
{
    early_birds(2, 0);
}

FS_TEST(ring_session, early_clients_of_other_queues_are_served)
{
    early_birds(5, 3);
}

FS_TEST(ring_session, early_clients_of_all_queues_are_served)
{
    early_birds(6, -1);
}

FS_TEST(ring_session, crews_shrink_when_all_is_quiet)
{
    uint64_t ids[12];
    uint32_t members;

    fs_run(&rig);
    for (int i = 0; i < 12; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 12));
    members = atomic_load(&rig.s->crews[1].members) + atomic_load(&rig.s->crews[2].members);
    cr_expect_geq(members, 12);
    fs_gate_open(&rig.gate);
    for (int i = 0; i < 12; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    /* A request from time to time keeps the monitor looking. */
    for (int i = 0; i < 3000; i++) {
        members = atomic_load(&rig.s->crews[1].members) + atomic_load(&rig.s->crews[2].members);
        if (members <= 4)
            break;
        ring_try_all(&rig);
        usleep(5000);
    }
    cr_expect_leq(members, 4, "%u readers serve two rings that have nothing to do", members);
    cr_expect_gt(fs_info(&rig).shrinks, 0);
    ring_try_all(&rig);
}

/* ---- handlers that keep what they entered ------------------------------------------------------------------ */

static int enter_by_others(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    cr_expect_not(fs_entered, "into the kernel with the language's lock");
    return mf__vk_calls.enter(kernel, fd, submit, wait, flags);
}

/* Stays until all that the test sends is there, and while answers may be kept back. */
static int32_t until_all_are_there(struct mf_call *call, struct fs_rig *r)
{
    const uint64_t *all = r->data;

    (void)call;
    for (int ms = 0; ms < 10000 && mf__vk_queue_look(r->vk, 0).delivered < *all; ms++)
        usleep(1000);
    atomic_store(&r->s->rings[0]->calling, MF__CALL_SLOW); /* the monitor may have found these to be few */
    return FS_DEFAULT;
}

static void run_keeping(uint64_t *all)
{
    static struct mf__uring_sys watched;

    watched = mf__vk_calls;
    watched.enter = enter_by_others;
    rig.keeps = true;
    rig.opts.readers = 2;
    rig.script = until_all_are_there;
    rig.data = all;
    fs_prepare(&rig);
    mf__vk_set_uring(rig.vk, &watched);
    cr_assert_eq(mf_session_attach_vkernel(rig.s, rig.vk, NULL), 0);
    atomic_store(&rig.s->slowness[FUSE_GETATTR], 1); /* known to return at once */
    fs_run(&rig);
    mf__vk_set_cpu(rig.vk, 0);
}

FS_TEST(ring_session, handlers_of_requests_that_are_there_are_entered_once)
{
    uint64_t all = 9, ids[9];

    run_keeping(&all);
    for (int i = 0; i < 9; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0 + (uint64_t)i % FS_FILES);
    for (int i = 0; i < 9; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    cr_expect_eq(atomic_load(&rig.calls), 9);
    cr_expect_geq(atomic_load(&rig.left), 1);
    cr_expect_leq(atomic_load(&rig.left), 3, "entered %u times for 9 requests that were there", atomic_load(&rig.left));
}

FS_TEST(ring_session, handlers_are_left_before_a_reader_waits)
{
    uint64_t all = 0;

    run_keeping(&all);
    for (unsigned i = 1; i <= 20; i++) {
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
        cr_expect_eq(atomic_load(&rig.left), i);
    }
    cr_expect_eq(atomic_load(&rig.calls), 20);
}

static const struct mf__transport *usual;
static struct mf__transport counting;
static _Atomic uint32_t wake_ups;

static void count_wake_up(struct mf__channel *ch)
{
    atomic_fetch_add(&wake_ups, 1);
    usual->wake(ch);
}

/* Readers that yield had better stay asleep: beside others' clients they would be owed what they wait for. */
FS_TEST(ring_session, a_session_that_goes_to_sleep_wakes_nobody)
{
    struct mf__channel *ch;
    uint64_t ids[64];

    fs_connect(&rig);
    ch = rig.s->rings[0];
    usual = ch->ops;
    counting = *usual;
    counting.wake = count_wake_up;
    ch->ops = &counting; /* before there are readers */
    fs_run(&rig);
    mf__vk_set_cpu(rig.vk, 0);
    for (int ms = 0; ms < 20000 && atomic_load(&ch->calling) == MF__CALL_ALWAYS; ms++) {
        for (int i = 0; i < 64; i++)
            ids[i] = fs_send_getattr(&rig, FS_FILE0);
        for (int i = 0; i < 64; i++)
            cr_assert_eq(fs_wait(&rig, ids[i]), 0);
    }
    cr_assert_neq(atomic_load(&ch->calling), MF__CALL_ALWAYS, "many fast requests have changed nothing");
    FS_UNTIL(atomic_load(&wake_ups) > 0);
    FS_UNTIL(atomic_load(&rig.s->monitor_asleep)); /* with what had changed, perhaps */
    atomic_store(&wake_ups, 0);
    atomic_store(&ch->calling, MF__CALL_SLOW);
    cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
    FS_UNTIL(atomic_load(&rig.s->monitor_asleep)); /* that request has woken it */
    cr_expect_eq(atomic_load(&ch->calling), MF__CALL_ALWAYS);
    cr_expect_eq(atomic_load(&wake_ups), 0);
    ring_try_all(&rig);
}

/* Answers of what returns as soon as it has answered go out afterwards. What goes on all the same keeps nobody waiting. */
static int32_t answer_and_pass(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_GATE || c->op != MF_OP_GETATTR)
        return FS_DEFAULT;
    mf_reply_err(c->req, EXDEV);
    fs_gate_pass(&r->gate);
    return MF_ANSWERED;
}

static void make_getattr_prompt(void)
{
    uint64_t ids[64];

    for (int i = 0; i < 5000 && !atomic_load(&rig.s->prompt[FUSE_GETATTR]); i++) {
        for (int j = 0; j < 64; j++)
            ids[j] = fs_send_getattr(&rig, FS_FILE0);
        for (int j = 0; j < 64; j++)
            cr_assert_eq(fs_wait(&rig, ids[j]), 0);
    }
    cr_assert(atomic_load(&rig.s->prompt[FUSE_GETATTR]), "many handlers that returned at once have changed nothing");
}

FS_TEST(ring_session, an_answer_does_not_wait_for_a_handler_that_goes_on)
{
    rig.script = answer_and_pass;
    fs_run(&rig);
    make_getattr_prompt();
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_GATE)), -EXDEV);
        cr_expect(fs_gate_await(&rig.gate, 1));
        ring_try_all(&rig);
        fs_gate_open(&rig.gate);
        FS_UNTIL(atomic_load(&rig.inside) == 0);
        fs_gate_shut(&rig.gate);
    }
}

/* No other reader would see it. */
FS_TEST(ring_session, nor_does_it_where_one_reader_was_asked_for)
{
    rig.script = answer_and_pass;
    rig.opts.readers = 1;
    fs_run(&rig);
    make_getattr_prompt();
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_GATE)), -EXDEV);
    cr_expect(fs_gate_await(&rig.gate, 1));
    fs_gate_open(&rig.gate);
    ring_try_all(&rig);
}

static int32_t answer_and_go_on(struct mf_call *c, struct fs_rig *r)
{
    uint64_t end = mf__now_ns() + 100000;

    (void)r;
    if (c->node != FS_GATE || c->op != MF_OP_GETATTR)
        return FS_DEFAULT;
    mf_reply_err(c->req, EXDEV);
    while (mf__now_ns() < end)
        continue;
    return MF_ANSWERED;
}

FS_TEST(ring_session, answers_of_handlers_that_go_on_are_soon_sent_at_once)
{
    rig.script = answer_and_go_on;
    fs_run(&rig);
    make_getattr_prompt();
    for (int i = 0; i < 20000 && atomic_load(&rig.s->prompt[FUSE_GETATTR]); i++)
        cr_assert_eq(fs_wait(&rig, fs_send_getattr(&rig, FS_GATE)), -EXDEV);
    cr_expect_not(atomic_load(&rig.s->prompt[FUSE_GETATTR]), "handlers that go on for 100 us have changed nothing");
    make_getattr_prompt(); /* and once they no longer do, afterwards again */
}

/* ---- beside the rings ------------------------------------------------------------------------------------ */

/* By whichever readers serve it: on a slow machine they may become more than one. */
static uint64_t device_reads(void)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < MF__MAX_READERS; i++)
        n += mf_vkernel_reads(rig.vk, i);
    return n;
}

FS_TEST(ring_session, forgets_and_interrupts_come_on_the_device)
{
    uint64_t reads, id;

    fs_run(&rig);
    ring_try_all(&rig);
    reads = device_reads();
    cr_expect_eq(mf_client_forget(rig.vk, FS_FILE0, 1), 0);
    FS_UNTIL(mf_vkernel_pending(rig.vk) == 0);
    cr_expect_eq(device_reads(), reads + 1);
    id = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 1));
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    FS_UNTIL(atomic_load(&rig.interrupts) == 1);
    cr_expect_eq(atomic_load(&rig.interrupted_id), id);
    cr_expect_eq(device_reads(), reads + 2);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_wait(&rig, id), 0);
}

FS_TEST(ring_session, notifications_go_to_the_device)
{
    fs_run(&rig);
    cr_expect_eq(mf_notify_inval_inode(rig.s, FS_FILE0, 0, 0), 0);
    cr_expect_eq(mf__vkernel_notified(rig.vk, FUSE_NOTIFY_INVAL_INODE), 1);
    for (uint32_t i = 0; i < rig.s->ring_count; i++) {
        uint8_t msg[64];
        int64_t len = mf__put_notify_inval_inode(msg, sizeof(msg), FS_FILE0, 0, 0);

        cr_expect_eq(rig.s->rings[i]->ops->write_raw(rig.s->rings[i], msg, (size_t)len), 0);
    }
    cr_expect_eq(mf__vkernel_notified(rig.vk, FUSE_NOTIFY_INVAL_INODE), 3);
}

/* It comes in an entry and wants no answer, but the entry must be given back. */
FS_TEST(ring_session, replies_to_retrieve_cost_no_entry)
{
    rig.opts.readers = 2;
    fs_run(&rig);
    ring_try_all(&rig);
    for (uint64_t i = 1; i <= 100; i++) {
        struct mf__channel *device = rig.s->channels[0];
        uint8_t msg[64];
        int64_t len = mf__put_notify_retrieve(msg, sizeof(msg), i * 1000, FS_FILE0, 0, 100);

        cr_assert_eq(device->ops->write_raw(device, msg, (size_t)len), 0);
    }
    FS_UNTIL(mf_vkernel_pending(rig.vk) == 0);
    FS_UNTIL(ring_idle(&rig) == 2 * MF__RING_DEPTH);
    ring_try_all(&rig);
}

/* ---- statistics ------------------------------------------------------------------------------------------ */

static uint64_t replies(void)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < fs_info(&rig).readers; i++)
        n += fs_stats(&rig, i).replies;
    return n;
}

FS_TEST(ring_session, statistics_are_those_of_ring_readers)
{
    struct mf_reader_stats sum;

    fs_run(&rig);
    for (int i = 0; i < 50; i++)
        ring_try_all(&rig);
    ring_right_read(&rig, FS_FILE0 + 5, 4096);
    FS_UNTIL(replies() == 101); /* they are counted when the client has them already */
    sum = (struct mf_reader_stats){ 0 };
    for (uint32_t i = 0; i < fs_info(&rig).readers; i++) {
        struct mf_reader_stats st = fs_stats(&rig, i);

        sum.requests += st.requests;
        sum.replies += st.replies;
        sum.errors += st.errors;
        sum.in_flight += st.in_flight;
        sum.malformed += st.malformed;
        sum.ops[FUSE_GETATTR].requests += st.ops[FUSE_GETATTR].requests;
        sum.ops[FUSE_GETATTR].bytes_in += st.ops[FUSE_GETATTR].bytes_in;
        sum.ops[FUSE_GETATTR].bytes_out += st.ops[FUSE_GETATTR].bytes_out;
        sum.ops[FUSE_READ].bytes_out += st.ops[FUSE_READ].bytes_out;
    }
    cr_expect_eq(sum.requests, 101);
    cr_expect_eq(sum.replies, 101);
    cr_expect_eq(sum.errors, 0);
    cr_expect_eq(sum.in_flight, 0);
    cr_expect_eq(sum.malformed, 0);
    cr_expect_eq(sum.ops[FUSE_GETATTR].requests, 100);
    cr_expect_eq(sum.ops[FUSE_GETATTR].bytes_in, 100 * 56, "%llu", (unsigned long long)sum.ops[FUSE_GETATTR].bytes_in);
    cr_expect_geq(sum.ops[FUSE_GETATTR].bytes_out, 100 * 104);
    cr_expect_geq(sum.ops[FUSE_READ].bytes_out, 4096);
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

FS_TEST(ring_session, unmounting_ends_it)
{
    fs_run(&rig);
    ring_try_all(&rig);
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_join(&rig), 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
}

FS_TEST(ring_session, unmounting_an_idle_one_ends_it)
{
    fs_run(&rig);
    FS_UNTIL(mf__vk_uring_is_ready(rig.vk));
    mf_vkernel_unmount(rig.vk);
    cr_expect_eq(fs_join(&rig), 0);
}

FS_TEST(ring_session, unmounting_before_all_is_registered_ends_it)
{
    for (int i = 0; i < 20; i++) {
        if (i)
            ring_setup(&rig, 9, 0);
        fs_run(&rig);
        usleep((unsigned)i * 100);
        mf_vkernel_unmount(rig.vk);
        cr_expect_eq(fs_join(&rig), 0);
        cr_expect_eq(mf__vk_urings(rig.vk), 0);
        if (i < 19)
            fs_end(&rig);
    }
}

/* Whoever hears of it first, a ring or the device: the result says that it was an abort. */
FS_TEST(ring_session, an_abort_is_told)
{
    for (int i = 0; i < 30; i++) {
        if (i)
            ring_setup(&rig, 2, 0);
        fs_run(&rig);
        ring_try_all(&rig);
        mf_vkernel_abort(rig.vk);
        cr_assert_eq(fs_join(&rig), -ECONNABORTED, "round %d", i);
        cr_expect_eq(mf__vk_urings(rig.vk), 0);
        if (i < 29)
            fs_end(&rig);
    }
}

FS_TEST(ring_session, an_abort_with_handlers_inside)
{
    uint64_t ids[6];

    fs_run(&rig);
    for (int i = 0; i < 6; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 6));
    mf_vkernel_abort(rig.vk);
    for (int i = 0; i < 6; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), -ECONNABORTED);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_join(&rig), -ECONNABORTED);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
}

FS_TEST(ring_session, stopping_waits_for_handlers)
{
    uint64_t ids[5];

    fs_run(&rig);
    for (int i = 0; i < 5; i++)
        ids[i] = fs_send_read(&rig, FS_GATE, FS_GATE_SIZE);
    cr_assert(fs_gate_await(&rig.gate, 5));
    mf_session_stop(rig.s);
    usleep(20000);
    cr_expect_eq(atomic_load(&rig.inside), 5);
    fs_gate_open(&rig.gate);
    cr_expect_eq(fs_join(&rig), 0);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
}

FS_TEST(ring_session, stopping_under_load)
{
    for (int i = 0; i < 20; i++) {
        uint64_t ids[64];
        int n = 64;

        if (i)
            ring_setup(&rig, 4, 0);
        fs_run(&rig);
        for (int j = 0; j < n; j++)
            ids[j] = fs_send_getattr(&rig, FS_FILE0);
        cr_assert_eq(fs_stop(&rig), 0);
        mf_vkernel_unmount(rig.vk);
        for (int j = 0; j < n; j++) {
            int rc = fs_wait(&rig, ids[j]);

            cr_assert(rc == 0 || rc == -ECONNABORTED, "%d", rc);
        }
        if (i < 19)
            fs_end(&rig);
    }
}

static int32_t until_stopped(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->node != FS_GATE)
        return FS_DEFAULT;
    for (int i = 0; i < 1000; i++)
        usleep(10000);
    return -EINTR;
}

#ifdef __SANITIZE_THREAD__
#define SKIP_CANCEL() cr_skip_test("ThreadSanitizer cannot follow a cancelled thread")
#else
#define SKIP_CANCEL() ((void)0)
#endif

static int32_t cancel_here(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_GATE)
        return FS_DEFAULT;
    atomic_fetch_sub(&r->inside, 1);
    pthread_cancel(pthread_self());
    pthread_testcancel();
    return -EIO;
}

/* The thread armed entries that others depend on: it must stay until the rings are gone. */
FS_TEST(ring_session, cancelled_readers_take_no_entry_along)
{
    SKIP_CANCEL();
    rig.script = cancel_here;
    fs_run(&rig);
    for (int i = 0; i < 8; i++) {
        cr_expect_eq(fs_wait(&rig, fs_send_read(&rig, FS_GATE, 10)), -EIO);
        ring_try_all(&rig);
    }
    cr_expect_eq(fs_info(&rig).failed_readers, 8);
    FS_UNTIL(ring_idle(&rig) == 2 * MF__RING_DEPTH);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(ring_getattr(&rig, FS_FILE0), 0);
}

FS_TEST(ring_session, a_cancelled_readers_own_ring_is_its_successors)
{
    SKIP_CANCEL();
    serve_on_own_rings();
    rig.script = cancel_here;
    for (int i = 0; i < 8; i++) {
        cr_expect_eq(fs_wait(&rig, fs_send_read(&rig, FS_GATE, 10)), -EIO);
        ring_try_all(&rig);
    }
    cr_expect_eq(fs_info(&rig).failed_readers, 8);
    FS_UNTIL(ring_idle(&rig) == 2 * MF__RING_DEPTH);
    for (int i = 0; i < 20; i++)
        eight_at_once();
}

FS_TEST(ring_session, rings_write_lines_of_statistics)
{
    int fd = memfd_create("stats", MFD_CLOEXEC);
    unsigned long long requests = 0;
    char text[8192] = "";
    char *line;

    fs_run(&rig);
    ring_try_all(&rig);
    ring_try_all(&rig);
    cr_expect_eq(mf_session_write_stats(rig.s, fd), 0);
    cr_assert_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
    for (uint32_t i = 0; i < 2; i++) {
        line = strstr(text, i ? "{\"ring\":1,\"readers\":" : "{\"ring\":0,\"readers\":");
        cr_assert_not_null(line, "%s", text);
        cr_expect_eq(sscanf(strstr(line, "\"requests\""), "\"requests\":%llu", &requests), 1);
        cr_expect_eq(requests, 2, "%s", line);
        cr_expect_not_null(strstr(line, "\"blocked\":0,"), "%s", line);
        cr_expect_not_null(strstr(line, "\"own\":0,"), "%s", line);
    }
    close(fd);
}

/* Replies are counted after they are out. */
static uint64_t in_flight(void)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < fs_info(&rig).readers; i++)
        n += fs_stats(&rig, i).in_flight;
    return n;
}

FS_TEST(ring_session, readers_are_cancelled_from_outside)
{
    SKIP_CANCEL();
    rig.script = until_stopped;
    fs_run(&rig);
    ring_try_all(&rig);
    for (int round = 0; round < 4; round++) {
        uint64_t id = fs_send_read(&rig, FS_GATE, 10);
        bool hit = false;

        FS_UNTIL(atomic_load(&rig.inside) == 1 && in_flight() == 1);
        for (uint32_t i = 0; i < fs_info(&rig).readers && !hit; i++) {
            struct mf__reader *r = rig.s->readers[i];

            hit = fs_stats(&rig, i).in_flight == 1;
            if (hit)
                pthread_cancel(r->thread);
        }
        cr_assert(hit);
        cr_expect_eq(fs_wait(&rig, id), -EIO);
        atomic_fetch_sub(&rig.inside, 1);
        ring_try_all(&rig);
    }
    cr_expect_eq(fs_info(&rig).failed_readers, 4);
}

FS_TEST(ring_session, many_sessions_one_after_the_other)
{
    for (int i = 0; i < 100; i++) {
        if (i)
            ring_setup(&rig, 2, 0);
        fs_run(&rig);
        ring_try_all(&rig);
        cr_assert_eq(fs_stop(&rig), 0);
        cr_assert_eq(mf__vk_urings(rig.vk), 0);
        if (i < 99)
            fs_end(&rig);
    }
}

Test(ring_session, one_that_never_ran_is_freed)
{
    fs_connect(&rig);
    cr_expect_gt(mf__vk_urings(rig.vk), 0);
    mf_session_free(rig.s);
    cr_expect_eq(mf__vk_urings(rig.vk), 0);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 0);
    mf_vkernel_free(rig.vk);
}
