/* SPDX-License-Identifier: MIT */
/* The ring transport without a session: system calls that fail, payloads at their limits, pools, memory. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test_vkernel.h"
#include "transport/ring.h"

#define PAYLOAD 131072u

static struct pair p;
static struct mf__channel *ring;
static struct mf__ring_opts opts;
static struct mf__io io;
static struct mf__io *got;

/* ---- a system whose enter fails as it is told ------------------------------------------------------------- */

static struct {
    _Atomic int skip;    /* so many submissions go well first */
    _Atomic int submits; /* so many submissions fail */
    _Atomic int waits;   /* so many waits fail */
    _Atomic int error;
    _Atomic int partly; /* a submission takes one command at most */
    _Atomic int enters;
} fail;

/* In a receive that has not said that it leaves. */
static _Thread_local bool entered;

static void leave(void *user)
{
    (void)user;
    entered = false;
}

static int failing_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    cr_expect_not(entered, "into the kernel without leaving");
    atomic_fetch_add(&fail.enters, 1);
    if (submit && atomic_load(&fail.skip) > 0) {
        atomic_fetch_sub(&fail.skip, 1);
    } else if (submit && atomic_load(&fail.submits) > 0) {
        atomic_fetch_sub(&fail.submits, 1);
        return atomic_load(&fail.error);
    }
    if (!submit && atomic_load(&fail.waits) > 0) {
        atomic_fetch_sub(&fail.waits, 1);
        return atomic_load(&fail.error);
    }
    if (submit > 1 && atomic_load(&fail.partly))
        submit = 1;
    return mf__vk_calls.enter(kernel, fd, submit, wait, flags);
}

static struct mf__uring_sys sys;

static _Atomic int refusals;
static _Atomic int refused_with;

static void refused(void *user, int error)
{
    (void)user;
    atomic_store(&refused_with, error);
    atomic_fetch_add(&refusals, 1);
}

static void setup(void)
{
    sys = mf__vk_calls;
    sys.enter = failing_enter;
}

static _Atomic bool access_may_wait;

static bool ask_may_wait(void *user, uint32_t opcode)
{
    (void)user;
    cr_expect_eq(opcode, FUSE_ACCESS);
    return atomic_load(&access_may_wait);
}

static void connect_with(uint32_t queues, uint32_t minor, bool agree)
{
    struct mf_vkernel_opts k = { .size = sizeof(k), .queues = queues, .minor = minor };

    cr_assert_eq(mf_vkernel_new(&k, &p.vk), 0);
    end_first(&p.end, p.vk);
    if (agree)
        end_init(&p.end, FUSE_OVER_IO_URING);
    opts = (struct mf__ring_opts){ .sys = &sys,
                                   .may_wait = ask_may_wait,
                                   .leave = leave,
                                   .kernel = p.vk,
                                   .device = p.end.ch,
                                   .step = 1,
                                   .queues = queues,
                                   .depth = 4,
                                   .max_payload = PAYLOAD,
                                   .refused = refused };
}

static void make(void)
{
    cr_assert_eq(mf__ring_channel(&opts, &ring), 0);
}

static void begin(uint32_t queues)
{
    connect_with(queues, 0, true);
    make();
}

static void finish(void)
{
    mf__channel_put(ring);
    cr_assert_eq(mf__vk_urings(p.vk), 0);
    pair_close(&p);
}

static int receive_in(struct mf__channel *ch, struct mf__io *spare, struct mf__io **out)
{
    int rc;

    entered = true;
    rc = ch->ops->receive(ch, spare, out);
    entered = false; /* there was a request already */
    return rc;
}

static int receive(void)
{
    int rc = receive_in(ring, &io, &got);

    if (rc == 0) {
        cr_assert_eq(got, &io);
        io.ch = ring;
        io.own_thread = true;
    }
    return rc;
}

/* Receive until there is a request. */
static void expect(uint32_t opcode)
{
    int rc;

    do {
        rc = receive();
    } while (rc == -EINTR);
    cr_assert_eq(rc, 0, "receive: %d", rc);
    cr_assert_eq(io.msg.hdr.opcode, opcode, "opcode %u in place of %u", io.msg.hdr.opcode, opcode);
}

static int answer(int error, const void *body, size_t len)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)body, .iov_len = len };

    return ring->ops->send(ring, &io, io.msg.hdr.unique, error, &iov, len ? 1 : 0);
}

struct asker {
    pthread_t thread;
    uint32_t opcode;
    const void *in;
    size_t in_len;
    uint8_t *out;
    uint64_t out_len;
    int rc;
};

static void *ask_main(void *arg)
{
    struct asker *a = arg;

    a->rc = mf_client_raw(p.vk, a->opcode, 1, a->in, a->in_len, a->out, a->out ? &a->out_len : NULL);
    return NULL;
}

/* A client's call, which waits for the mount to be ready. */
static void ask(struct asker *a, uint32_t opcode, const void *in, size_t in_len, void *out, uint64_t room)
{
    *a = (struct asker){ .opcode = opcode, .in = in, .in_len = in_len, .out = out, .out_len = room };
    cr_assert_eq(pthread_create(&a->thread, NULL, ask_main, a), 0);
}

static void ask_access(struct asker *a)
{
    static const struct fuse_access_in in = { .mask = 1 };

    ask(a, FUSE_ACCESS, &in, sizeof(in), NULL, 0);
}

static int asked(struct asker *a)
{
    pthread_join(a->thread, NULL);
    return a->rc;
}

/* A request from its start to its end. */
static void one_request(void)
{
    struct asker a;

    ask_access(&a);
    expect(FUSE_ACCESS);
    cr_assert_eq(answer(-EACCES, NULL, 0), 0);
    cr_assert_eq(asked(&a), -EACCES);
}

static uint32_t idle_entries(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < opts.queues; i++)
        n += mf__vk_queue_look(p.vk, i).idle;
    return n;
}

TestSuite(ring_channel, .init = setup, .timeout = 30);

/* ---- making one ------------------------------------------------------------------------------------------ */

Test(ring_channel, refuses_impossible_options)
{
    connect_with(2, 0, true);
    opts.step = 0;
    cr_expect_eq(mf__ring_channel(&opts, &ring), -EINVAL);
    opts.step = 1;
    opts.first_queue = 2;
    cr_expect_eq(mf__ring_channel(&opts, &ring), -EINVAL);
    opts.first_queue = 0;
    opts.depth = 0;
    cr_expect_eq(mf__ring_channel(&opts, &ring), -EINVAL);
    opts.depth = 20000; /* more completions than a ring may have */
    opts.queues = 2;
    cr_expect_eq(mf__ring_channel(&opts, &ring), -EINVAL);
    cr_expect_eq(mf__vk_urings(p.vk), 0);
    pair_close(&p);
}

Test(ring_channel, the_system_may_refuse)
{
    struct mf__uring_params none = { .flags = 0 };
    void *at;

    /* Of this system nothing is asked but that it fails as it should. */
    cr_expect_lt(mf__uring_system.setup(NULL, 0, &none), 0);
    cr_expect_eq(mf__uring_system.enter(NULL, -1, 0, 0, 0), -EBADF);
    cr_expect_eq(mf__uring_system.map(NULL, -1, 4096, 0, &at), -EBADF);
    connect_with(1, 0, true);
    cr_expect_lt(mf__uring_system.attach(NULL, -1, p.end.ch), 0);
    cr_expect_not(mf__uring_system.over(NULL, p.end.ch), "what has no descriptor is not over");
    cr_expect_gt(mf__uring_system.queues(NULL), 0);
    pair_close(&p);
}

Test(ring_channel, cannot_be_cloned)
{
    struct mf__channel *clone;

    begin(1);
    cr_expect_eq(ring->ops->clone(ring, &clone), -ENOTSUP);
    cr_expect_eq(ring->fd, -1);
    finish();
}

/* ---- registering ----------------------------------------------------------------------------------------- */

Test(ring_channel, registers_at_the_first_receive)
{
    begin(3);
    cr_expect_eq(mf__ring_state(ring), 0);
    cr_expect_eq(idle_entries(), 0);
    one_request();
    cr_expect_eq(idle_entries(), 12);
    cr_expect_eq(mf__ring_state(ring), 1);
    finish();
}

Test(ring_channel, waits_for_the_answer_to_init)
{
    struct asker a;
    struct fuse_init_out out = terms(FUSE_OVER_IO_URING);

    connect_with(2, 0, false);
    make();
    end_expect(&p.end, FUSE_INIT);
    ring->ops->wake(ring);
    cr_expect_eq(receive(), -EINTR); /* EAGAIN from the kernel is no refusal */
    ask_access(&a);
    cr_assert_eq(end_answer(&p.end, 0, &out, sizeof(out)), 0);
    expect(FUSE_ACCESS);
    cr_expect_eq(answer(0, NULL, 0), 0);
    cr_expect_eq(asked(&a), 0);
    cr_expect_eq(refusals, 0);
    finish();
}

Test(ring_channel, a_refusal_is_told_once)
{
    static const int errors[] = { -EOPNOTSUPP, -EINVAL, -EPERM, -ENOMEM };

    for (size_t i = 0; i < MF__ARRAY_SIZE(errors); i++) {
        refusals = 0;
        begin(2);
        mf__vk_set_fault(
            p.vk, &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .count = UINT32_MAX, .error = errors[i] });
        while (mf__ring_state(ring) >= 0)
            cr_assert_eq(receive(), -EINTR);
        cr_expect_eq(mf__ring_state(ring), errors[i]);
        cr_expect_eq(refusals, 1);
        cr_expect_eq(refused_with, errors[i]);
        cr_expect_eq(receive(), -EINTR, "and nobody waits here any more");
        finish();
    }
}

static void register_all(uint32_t n)
{
    while (mf__ring_state(ring) == 0) {
        ring->ops->wake(ring);
        cr_assert_eq(receive(), -EINTR);
    }
    cr_expect_eq(idle_entries(), n);
    cr_expect_eq(mf__ring_state(ring), 1);
}

/* ENOMEM in the middle: a queue's other entries serve. */
Test(ring_channel, a_queue_serves_with_fewer_entries)
{
    begin(2);
    mf__vk_set_fault(
        p.vk, &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .skip = 1, .count = 3, .error = -ENOMEM });
    register_all(5); /* before that, requests go to the device again */
    for (int i = 0; i < 10; i++)
        one_request();
    cr_expect_eq(refusals, 0);
    cr_expect_eq(idle_entries(), 5);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(receive(), -ENODEV, "all are gone, with those that never were");
    finish();
}

/* All entries of one queue, those of the other one are there. */
static void begin_refused(void)
{
    begin(2);
    mf__vk_set_fault(
        p.vk, &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_REGISTER, .skip = 4, .count = 4, .error = -ENOMEM });
    while (mf__ring_state(ring) >= 0)
        cr_assert_eq(receive(), -EINTR);
}

Test(ring_channel, nothing_left_of_a_queue_is_a_refusal)
{
    begin_refused();
    cr_expect_eq(refusals, 1);
    finish();
}

static int no_file(void *kernel, int fd, struct mf__channel *device)
{
    (void)kernel;
    (void)fd;
    (void)device;
    return -ENFILE;
}

Test(ring_channel, a_file_that_cannot_be_attached_is_a_refusal)
{
    sys.attach = no_file;
    begin(1);
    cr_expect_eq(receive(), -ENFILE);
    cr_expect_eq(mf__ring_state(ring), -ENFILE);
    cr_expect_eq(refusals, 1);
    finish();
}

Test(ring_channel, the_first_submission_is_tried_again)
{
    begin(1);
    fail.error = -EAGAIN;
    fail.submits = 20;
    one_request();
    cr_expect_eq(fail.submits, 0);
    cr_expect_eq(refusals, 0);
    finish();
}

Test(ring_channel, but_not_for_ever)
{
    begin(1);
    fail.error = -ENOMEM;
    fail.submits = 100000;
    for (int i = 0; i < 1000 && mf__ring_state(ring) >= 0; i++)
        receive();
    cr_expect_eq(mf__ring_state(ring), -ENOMEM);
    cr_expect_eq(refusals, 1);
    fail.submits = 0;
    finish();
}

Test(ring_channel, submissions_may_be_taken_in_part)
{
    connect_with(1, 0, true);
    opts.depth = 40;
    make();
    fail.partly = 1;
    fail.error = -EINTR; /* that is no error */
    fail.submits = 3;
    one_request();
    register_all(40);
    finish();
}

/* Each queue has one entry at least: good enough. */
Test(ring_channel, a_hard_error_in_the_middle_leaves_what_is_there)
{
    connect_with(1, 0, true);
    opts.depth = 40;
    make();
    fail.partly = 1;
    fail.skip = 5;
    fail.error = -ENXIO;
    fail.submits = 1;
    fail.waits = 1; /* it has registered what it can when it waits */
    cr_expect_eq(receive(), -ENXIO);
    cr_expect_eq(mf__ring_state(ring), 1);
    cr_expect_eq(idle_entries(), 5);
    one_request();
    cr_expect_eq(refusals, 0);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(receive(), -ENODEV);
    finish();
}

Test(ring_channel, a_ring_waits_for_the_others)
{
    struct mf__channel *first;
    struct asker a;

    connect_with(2, 0, true);
    opts.step = 2;
    opts.others = 1;
    make();
    first = ring;
    opts.others = 0;
    opts.last = first;
    opts.first_queue = 1;
    make();
    /* The first ring has one queue, so it registers nothing before the other one is done. */
    first->ops->wake(first);
    cr_expect_eq(receive_in(first, &io, &got), -EINTR);
    cr_expect_eq(idle_entries(), 0);
    ring->ops->wake(ring);
    cr_expect_eq(receive(), -EINTR);
    for (int i = 0; i < 8 && mf__ring_state(ring) == 0; i++) {
        ring->ops->wake(ring);
        receive();
    }
    cr_expect_eq(mf__vk_queue_look(p.vk, 1).idle, 4);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 0);
    mf__vk_set_cpu(p.vk, 0);
    ask_access(&a);
    do {
        got = NULL;
    } while (receive_in(first, &io, &got) == -EINTR);
    cr_expect_eq(io.msg.hdr.opcode, FUSE_ACCESS);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 3, "all of the last queue came at once");
    io.own_thread = true;
    cr_expect_eq(first->ops->send(first, &io, io.msg.hdr.unique, 0, NULL, 0), 0);
    cr_expect_eq(asked(&a), 0);
    mf__channel_put(first);
    finish();
}

Test(ring_channel, another_rings_refusal_ends_the_waiting)
{
    begin(1);
    one_request();
    mf__ring_refuse(ring, -EINVAL);
    cr_expect_eq(receive(), -EINTR);
    cr_expect_eq(mf__ring_state(ring), -EINVAL);
    mf__ring_refuse(ring, -EPERM);
    cr_expect_eq(mf__ring_state(ring), -EINVAL, "the first reason stays");
    finish();
}

/* ---- waiting and committing ------------------------------------------------------------------------------ */

Test(ring_channel, a_wait_that_fails_for_want_of_memory_goes_on)
{
    struct asker a;

    begin(1);
    one_request();
    fail.error = -EBUSY;
    fail.waits = 3;
    cr_expect_eq(receive(), -EINTR);
    cr_expect_eq(receive(), -EINTR);
    ask_access(&a);
    expect(FUSE_ACCESS);
    cr_expect_eq(answer(0, NULL, 0), 0);
    cr_expect_eq(asked(&a), 0);
    fail.waits = 0;
    finish();
}

Test(ring_channel, a_broken_ring_says_so)
{
    begin(1);
    one_request();
    fail.error = -EBADF;
    fail.waits = 1;
    cr_expect_eq(receive(), -EBADF, "nobody shut it");
    fail.error = -EINTR;
    fail.waits = 1;
    cr_expect_eq(receive(), -EINTR);
    finish();
}

/* The answer is laid: it goes out at the next receive. */
Test(ring_channel, a_commit_that_fails_for_want_of_memory_is_repeated)
{
    static const int errors[] = { -EAGAIN, -EBUSY, -ENOMEM };

    begin(1);
    for (size_t i = 0; i < MF__ARRAY_SIZE(errors); i++) {
        struct asker a;

        ask_access(&a);
        expect(FUSE_ACCESS);
        fail.error = errors[i];
        fail.submits = 3;
        cr_expect_eq(answer(-ENXIO, NULL, 0), 0);
        while (atomic_load(&fail.submits) > 0)
            cr_assert_eq(receive(), -EINTR);
        one_request();
        cr_expect_eq(asked(&a), -ENXIO);
    }
    cr_expect_eq(idle_entries(), 4);
    finish();
}

/* One that was left to the next receive goes out with it, with others, or when it is clear that there will be none. */
Test(ring_channel, an_answer_goes_out_with_the_next_receive)
{
    struct asker first, second;

    begin(1);
    one_request(); /* all is registered */
    ask_access(&first);
    expect(FUSE_ACCESS);
    io.receives_next = true;
    cr_expect_eq(answer(-EDOM, NULL, 0), MF__SENT_LATER);
    cr_expect_eq(answer(-EDOM, NULL, 0), -ENOENT, "a second answer");
    usleep(20000);
    cr_expect_eq(idle_entries(), 3);
    mf__ring_flush(ring, NULL);
    cr_expect_eq(idle_entries(), 4);
    cr_expect_eq(asked(&first), -EDOM);

    ask_access(&first);
    ask_access(&second);
    expect(FUSE_ACCESS);
    cr_expect_eq(answer(-ENXIO, NULL, 0), MF__SENT_LATER);
    expect(FUSE_ACCESS);
    cr_expect_eq(answer(-ENXIO, NULL, 0), MF__SENT_LATER);
    io.receives_next = false;
    one_request();
    cr_expect_eq(asked(&first), -ENXIO);
    cr_expect_eq(asked(&second), -ENXIO);
    cr_expect_eq(idle_entries(), 4);
    finish();
}

Test(ring_channel, a_commit_that_fails_for_good_is_told)
{
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    fail.error = -ENXIO;
    fail.submits = 1;
    cr_expect_eq(answer(0, NULL, 0), -ENXIO);
    /* And when it was only for the moment after all, the client is none the worse. */
    one_request();
    cr_expect_eq(asked(&a), 0);
    finish();
}

/* Not one command lags behind the others. */
Test(ring_channel, a_command_that_was_not_submitted_is_taken_back)
{
    begin(1);
    one_request();
    fail.error = -EAGAIN;
    fail.submits = 1;
    ring->ops->wake(ring);
    cr_expect_eq(receive(), -EINTR);
    for (int i = 0; i < 20; i++) {
        struct asker a;

        ask_access(&a);
        expect(FUSE_ACCESS);
        fail.submits = i % 2;
        cr_expect_eq(answer(-EACCES, NULL, 0), 0);
        ring->ops->wake(ring);
        cr_expect_eq(receive(), -EINTR);
        cr_expect_eq(asked(&a), -EACCES);
    }
    one_request();
    cr_expect_eq(idle_entries(), 4);
    finish();
}

Test(ring_channel, a_wake_that_cannot_be_sent_gives_up)
{
    begin(1);
    one_request();
    fail.error = -ENOMEM;
    fail.submits = 1 << 20;
    ring->ops->wake(ring);
    cr_expect_lt(fail.enters, 1000);
    fail.submits = 0;
    finish();
}

static _Atomic bool stay, staying;

static int staying_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    if (submit && atomic_load(&stay)) {
        atomic_store(&staying, true);
        while (atomic_load(&stay))
            usleep(1000);
    }
    return mf__vk_calls.enter(kernel, fd, submit, wait, flags);
}

static void *wake(void *arg)
{
    (void)arg;
    ring->ops->wake(ring);
    return NULL;
}

static void *end_stay(void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000 && atomic_load(&stay); i++)
        usleep(1000);
    atomic_store(&stay, false);
    return NULL;
}

/* A reader that yields may be kept from a CPU in the middle of a submission. */
Test(ring_channel, who_wakes_it_does_not_wait_for_who_submits)
{
    pthread_t submits, ends;

    begin(1);
    one_request();
    sys.enter = staying_enter;
    atomic_store(&stay, true);
    cr_assert_eq(pthread_create(&submits, NULL, wake, NULL), 0);
    while (!atomic_load(&staying))
        usleep(1000);
    cr_assert_eq(pthread_create(&ends, NULL, end_stay, NULL), 0);
    ring->ops->wake(ring);
    cr_expect(atomic_exchange(&stay, false), "it waited until the other had submitted");
    pthread_join(ends, NULL);
    pthread_join(submits, NULL);
    cr_expect_eq(receive(), -EINTR);
    cr_expect_eq(receive(), -EINTR, "the second wake-up is lost");
    finish();
}

static void *answer_in_time(void *arg)
{
    struct mf__io *other = arg;

    cr_expect_geq(ring->ops->send(ring, other, other->msg.hdr.unique, -EDOM, NULL, 0), 0);
    return NULL;
}

/* Where the lock was handed round, somebody might wait for it as long as others had something to send. */
Test(ring_channel, who_submits_an_answer_submits_what_was_left_to_him)
{
    struct asker asks[2];
    struct mf__io second;
    pthread_t other, ends;
    int answers[2];

    begin(1);
    one_request();
    ask_access(&asks[0]);
    expect(FUSE_ACCESS);
    second = io;
    io = (struct mf__io){ 0 };
    ask_access(&asks[1]);
    expect(FUSE_ACCESS);
    sys.enter = staying_enter;
    atomic_store(&stay, true);
    cr_assert_eq(pthread_create(&other, NULL, answer_in_time, &second), 0);
    while (!atomic_load(&staying))
        usleep(1000);
    cr_assert_eq(pthread_create(&ends, NULL, end_stay, NULL), 0);
    cr_expect_eq(answer(-EXDEV, NULL, 0), MF__SENT_LATER);
    atomic_store(&stay, false);
    for (size_t i = 0; i < 2; i++)
        answers[i] = asked(&asks[i]); /* which of them came first is theirs */
    cr_expect_eq(answers[0] + answers[1], -EDOM - EXDEV, "%d and %d", answers[0], answers[1]);
    pthread_join(other, NULL);
    pthread_join(ends, NULL);
    finish();
}

#define WAKERS 4u
#define WAKE_UPS 50000u

static void *wake_often(void *arg)
{
    for (unsigned i = 0; i < WAKE_UPS; i++)
        wake(arg);
    return NULL;
}

/* Each sends its own one, or leaves it to another: neither is one lost, nor sent for nobody. */
Test(ring_channel, wake_ups_at_the_same_time_are_all_seen)
{
    pthread_t threads[WAKERS];

    begin(1);
    one_request();
    for (unsigned i = 0; i < WAKERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, wake_often, NULL), 0);
    for (unsigned n = 0; n < WAKERS * WAKE_UPS; n++)
        cr_assert_eq(receive(), -EINTR);
    for (unsigned i = 0; i < WAKERS; i++)
        pthread_join(threads[i], NULL);
    finish();
}

Test(ring_channel, a_commit_of_what_is_unknown_costs_the_entry_only)
{
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    mf__vk_set_fault(p.vk,
                     &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH, .count = 1, .error = -ENOENT });
    cr_expect_eq(answer(0, NULL, 0), 0);
    for (int i = 0; i < 10; i++)
        one_request();
    cr_expect_eq(mf__ring_state(ring), 1);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(asked(&a), -ECONNABORTED);
    cr_expect_eq(receive(), -ENODEV);
    finish();
}

Test(ring_channel, a_second_answer_touches_nothing)
{
    struct asker a, b;
    struct mf__io first;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    cr_expect_eq(answer(-EPERM, NULL, 0), 0);
    cr_expect_eq(answer(-EIO, NULL, 0), -ENOENT);
    cr_expect_eq(asked(&a), -EPERM);
    first = io;
    ask_access(&b);
    expect(FUSE_ACCESS);
    cr_expect_eq(first.entry, io.entry);
    cr_expect_eq(ring->ops->send(ring, &first, first.msg.hdr.unique, -EIO, NULL, 0), -ENOENT);
    cr_expect_eq(answer(-EROFS, NULL, 0), 0);
    cr_expect_eq(asked(&b), -EROFS);
    finish();
}

static void *answer_elsewhere(void *arg)
{
    (void)arg;
    io.own_thread = false;
    cr_expect_eq(answer(-EDOM, NULL, 0), 0);
    return NULL;
}

static void answers_of_others(int n)
{
    for (int i = 0; i < n; i++) {
        pthread_t thread;
        struct asker a;

        ask_access(&a);
        expect(FUSE_ACCESS);
        cr_assert_eq(pthread_create(&thread, NULL, answer_elsewhere, NULL), 0);
        pthread_join(thread, NULL);
        cr_expect_eq(receive(), -EINTR);
        cr_expect_eq(asked(&a), -EDOM);
    }
    one_request();
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 4);
}

Test(ring_channel, foreign_answers_are_committed_by_who_receives)
{
    begin(1);
    answers_of_others(10);
    finish();
}

/* Whoever receives is woken without the ring beside it. */
Test(ring_channel, foreign_answers_need_no_message_between_rings)
{
    begin(1);
    answers_of_others(1);
    mf__vk_set_fault(p.vk, &(struct mf__vk_fault){ .op = MF__URING_OP_MSG_RING, .count = 3, .error = -EOVERFLOW });
    answers_of_others(5);
    finish();
}

static int setups;

static int no_setup(void *kernel, uint32_t entries, struct mf__uring_params *params)
{
    (void)kernel;
    (void)entries;
    (void)params;
    setups++;
    return -EMFILE;
}

Test(ring_channel, foreign_answers_need_no_second_ring)
{
    begin(1);
    sys.setup = no_setup;
    answers_of_others(5);
    cr_expect_eq(setups, 1, "what was refused is asked for again");
    finish();
}

/* ---- several who receive --------------------------------------------------------------------------------- */

struct receiver {
    pthread_t thread;
    struct mf__io io;
    struct mf__own_ring *own;
};

static _Atomic uint32_t in_hand; /* requests that were received and are not answered yet */
static _Atomic bool may_answer, over, may_exit;
static _Atomic uint32_t permits; /* to answer, one request each */
static _Atomic uint32_t stopped;

static bool take_permit(void)
{
    uint32_t n = atomic_load(&permits);

    return n && atomic_compare_exchange_strong(&permits, &n, n - 1);
}

static void *receive_main(void *arg)
{
    struct receiver *v = arg;
    int rc;

    do {
        struct mf__io *mine;

        v->io.own = v->own;
        rc = receive_in(ring, &v->io, &mine);
        if (rc == 0) {
            v->io.ch = ring;
            v->io.own_thread = true;
            atomic_fetch_add(&in_hand, 1);
            while (!atomic_load(&may_answer) && !take_permit())
                usleep(100);
            /* Who sends at the same moment may send this one, too. */
            cr_expect_geq(ring->ops->send(ring, &v->io, v->io.msg.hdr.unique, -EXDEV, NULL, 0), 0);
        }
    } while (!atomic_load(&over));
    atomic_fetch_add(&stopped, 1);
    while (!atomic_load(&may_exit)) /* the entries that it armed end with it */
        usleep(1000);
    return NULL;
}

static bool within(int ms, uint32_t n)
{
    for (; ms > 0 && atomic_load(&in_hand) != n; ms--)
        usleep(1000);
    return atomic_load(&in_hand) == n;
}

static struct receiver receivers[3];

static void start_threads(void)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++)
        cr_assert_eq(pthread_create(&receivers[i].thread, NULL, receive_main, &receivers[i]), 0);
    for (int i = 0; i < 1000 && mf__vk_queue_look(p.vk, 0).idle < 4; i++)
        usleep(1000);
    usleep(20000); /* one waits for completions, the others follow */
}

static void start_receivers(void)
{
    begin(1);
    start_threads();
}

static void stop_threads(void)
{
    atomic_store(&over, true);
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++) {
        if (!receivers[i].own || !mf__own_ring_wake(receivers[i].own))
            ring->ops->wake(ring);
    }
    while (atomic_load(&stopped) < MF__ARRAY_SIZE(receivers))
        usleep(1000);
}

static void finish_threads(void)
{
    atomic_store(&may_exit, true);
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++)
        pthread_join(receivers[i].thread, NULL);
    finish();
}

static void end_receivers(struct asker *askers, size_t n)
{
    atomic_store(&may_answer, true);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(asked(&askers[i]), -EXDEV);
    stop_threads();
    finish_threads();
}

Test(ring_channel, while_one_is_busy_another_takes_what_comes)
{
    struct asker askers[3];

    start_receivers();
    for (uint32_t i = 0; i < 3; i++) {
        ask_access(&askers[i]);
        cr_assert(within(5000, i + 1), "%u of %u requests were received", atomic_load(&in_hand), i + 1);
    }
    end_receivers(askers, 3);
}

static struct mf__ring_counts counts(void)
{
    struct mf__ring_counts n;

    mf__ring_counts(ring, &n);
    return n;
}

/* Three handlers get stuck, one after the other; how often a follower had to find out. */
static uint64_t found_out(void)
{
    struct mf__ring_counts n;
    struct asker askers[3];

    start_receivers();
    atomic_store(&ring->calling, MF__CALL_SLOW);
    ring->ops->wake(ring); /* as who sets it does */
    usleep(20000);
    for (uint32_t i = 0; i < 3; i++)
        ask_access(&askers[i]);
    cr_expect(within(5000, 3), "%u of 3 requests were received", atomic_load(&in_hand));
    n = counts();
    cr_expect_eq(n.requests, 3);
    end_receivers(askers, 3);
    return n.blocked;
}

Test(ring_channel, before_handlers_that_may_wait_another_one_is_called)
{
    atomic_store(&access_may_wait, true);
    cr_expect_eq(found_out(), 0);
}

Test(ring_channel, before_others_nobody_is_called_and_yet_nobody_held_up)
{
    atomic_store(&access_may_wait, false);
    cr_expect_eq(found_out(), 2);
}

/* Where that was in vain for long they leave it to others. */
Test(ring_channel, whoever_looks_from_elsewhere_calls_a_follower)
{
    struct mf__ring_counts n;
    struct asker askers[3];

    start_receivers();
    atomic_store(&ring->calling, MF__CALL_SLOW);
    ring->ops->wake(ring);
    usleep(1000000); /* 256 looks of 1 ms at most */
    for (uint32_t i = 0; i < 3; i++)
        ask_access(&askers[i]);
    cr_expect(within(5000, 1));
    usleep(50000);
    cr_expect_eq(atomic_load(&in_hand), 1, "a follower has looked");
    for (int i = 0; i < 1000 && atomic_load(&in_hand) < 2; i++, usleep(1000))
        mf__ring_look(ring);
    /* That was not in vain: they look themselves again. */
    cr_expect(within(5000, 3), "%u of 3 requests were received", atomic_load(&in_hand));
    n = counts();
    cr_expect_eq(n.blocked, 2);
    end_receivers(askers, 3);
}

Test(ring_channel, while_handlers_return_at_once_one_does_it_all)
{
    struct asker askers[3];

    start_receivers();
    atomic_store(&ring->calling, MF__CALL_SLOW);
    for (uint32_t i = 0; i < 3; i++)
        ask_access(&askers[i]);
    cr_expect(within(5000, 1));
    usleep(50000);
    cr_expect_eq(atomic_load(&in_hand), 1);
    /* This handler does not return at once. */
    atomic_store(&ring->calling, MF__CALL_ALWAYS);
    ring->ops->wake(ring);
    cr_expect(within(5000, 3), "%u of 3 requests were received", atomic_load(&in_hand));
    end_receivers(askers, 3);
}

static _Atomic bool rob, robbing; /* who waits is kept from what he waited for until another one has taken it */

static int robbed_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    int rc = mf__vk_calls.enter(kernel, fd, submit, wait, flags);

    if (wait && atomic_exchange(&rob, false)) {
        atomic_store(&robbing, true);
        while (atomic_load(&robbing))
            usleep(100);
    }
    return rc;
}

/* Two who take turns on one CPU, the one at work and the other woken for each request, would go on like that. */
Test(ring_channel, who_finds_that_another_one_serves_follows)
{
    struct asker a;
    uint64_t before;

    begin(1);
    one_request();
    before = counts().waits;
    atomic_store(&ring->calling, MF__CALL_SLOW);
    atomic_store(&may_answer, true);
    atomic_store(&rob, true);
    sys.enter = robbed_enter;
    cr_assert_eq(pthread_create(&receivers[0].thread, NULL, receive_main, &receivers[0]), 0);
    for (int i = 0; i < 10000 && counts().waits == before; i++)
        usleep(1000);
    ask_access(&a);
    for (int i = 0; i < 10000 && !atomic_load(&robbing); i++)
        usleep(1000);
    expect(FUSE_ACCESS);
    atomic_store(&robbing, false);
    usleep(20000);
    cr_expect_eq(counts().waits, before + 1, "he waits again, and would be woken again");
    cr_expect_eq(answer(-EDOM, NULL, 0), 0);
    cr_expect_eq(asked(&a), -EDOM);
    /* But who served does not come back. */
    ask_access(&a);
    cr_expect_eq(asked(&a), -EXDEV);
    atomic_store(&over, true);
    ring->ops->wake(ring);
    atomic_store(&may_exit, true);
    pthread_join(receivers[0].thread, NULL);
    finish();
}

/* ---- rings of readers' own ------------------------------------------------------------------------------- */

/* Of a reader that has one. */
static struct mf__own_ring *with_entry(void)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++) {
        if (mf__own_ring_holds(receivers[i].own))
            return receivers[i].own;
    }
    cr_assert(false, "no reader has an entry");
    return NULL;
}

static uint32_t entries_apart(void)
{
    uint32_t n = 0;

    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++)
        n += receivers[i].own && mf__own_ring_holds(receivers[i].own);
    return n;
}

static void start_with_own(void)
{
    begin(1);
    atomic_store(&ring->calling, MF__OWN_RINGS);
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++)
        cr_assert_eq(mf__ring_take_own(ring, &receivers[i].own), 0);
    start_threads();
}

static void one_after_the_other(uint32_t n)
{
    struct asker a;

    atomic_store(&may_answer, true);
    for (uint32_t i = 0; i < n; i++) {
        ask_access(&a);
        cr_assert_eq(asked(&a), -EXDEV);
        usleep(5000); /* for the reader to be back */
    }
}

/* The entry has gone along with the first answer; what comes then wakes its reader, who calls nobody. */
Test(ring_channel, requests_come_where_the_last_answer_went)
{
    struct mf__ring_counts n;

    start_with_own();
    one_after_the_other(20);
    n = counts();
    cr_expect_eq(n.requests, 20);
    cr_expect_eq(n.own, 19);
    cr_expect_eq(n.calls, 1);
    cr_expect_eq(entries_apart(), 1);
    end_receivers(NULL, 0);
}

/* But one, who waits for what is too much for the others. */
Test(ring_channel, readers_come_to_have_an_entry_each)
{
    struct asker askers[3];

    start_with_own();
    for (int round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < 3; i++) {
            ask_access(&askers[i]);
            cr_assert(within(5000, i + 1), "round %d: %u of %u were received", round, atomic_load(&in_hand), i + 1);
        }
        for (size_t i = 0; i < 3; i++, usleep(10000)) /* the first one is back before the second answers */
            atomic_store(&permits, 1);
        for (size_t i = 0; i < 3; i++)
            cr_expect_eq(asked(&askers[i]), -EXDEV);
        atomic_store(&in_hand, 0);
        cr_expect(entries_apart() == 1 || entries_apart() == 2, "round %d: %u", round, entries_apart());
    }
    cr_expect_geq(counts().own, 9);
    end_receivers(NULL, 0);
}

Test(ring_channel, where_nobody_else_waits_answers_go_to_the_shared_ring)
{
    begin(1);
    atomic_store(&ring->calling, MF__OWN_RINGS);
    cr_assert_eq(mf__ring_take_own(ring, &io.own), 0);
    for (int i = 0; i < 5; i++)
        one_request();
    cr_expect_not(mf__own_ring_holds(io.own));
    cr_expect_eq(counts().own, 0);
    finish();
}

Test(ring_channel, entries_return_with_the_answer_where_own_rings_do_not_pay)
{
    start_with_own();
    one_after_the_other(5);
    cr_expect_eq(counts().own, 4);
    atomic_store(&ring->calling, MF__CALL_SLOW);
    one_after_the_other(5);
    cr_expect_eq(counts().own, 5);
    cr_expect_eq(entries_apart(), 0);
    end_receivers(NULL, 0);
}

/* Its reader had to go, with an entry there. */
Test(ring_channel, another_one_takes_what_was_left_with_an_entry)
{
    struct mf__own_ring *own;

    start_with_own();
    one_after_the_other(2);
    stop_threads();
    cr_assert_eq(entries_apart(), 1);
    cr_expect_not(mf__ring_has_orphans(ring));
    atomic_store(&ring->calling, MF__CALL_SLOW);
    for (size_t i = 0; i < MF__ARRAY_SIZE(receivers); i++)
        mf__own_ring_give(receivers[i].own);
    cr_expect(mf__ring_has_orphans(ring));
    cr_expect_eq(atomic_load(&ring->calling), MF__OWN_RINGS, "readers look for it");
    cr_assert_eq(mf__ring_take_own(ring, &own), 0);
    cr_expect(mf__own_ring_holds(own), "one that is empty was taken first");
    cr_expect_not(mf__ring_has_orphans(ring));
    io.own = own;
    one_request();
    cr_expect_eq(counts().own, 2);
    finish_threads();
}

static void *receive_once(void *arg)
{
    *(int *)arg = receive();
    return NULL;
}

Test(ring_channel, who_waits_on_his_own_ring_is_woken_there)
{
    struct mf__own_ring *own;
    pthread_t thread;
    int rc = 0;

    start_with_own();
    one_after_the_other(1);
    stop_threads();
    own = with_entry();
    cr_expect_not(mf__own_ring_wake(own), "nobody waits");
    io.own = own;
    cr_assert_eq(pthread_create(&thread, NULL, receive_once, &rc), 0);
    for (int i = 0; i < 5000 && !mf__own_ring_wake(own); i++)
        usleep(1000);
    pthread_join(thread, NULL);
    cr_expect_eq(rc, -EINTR);
    cr_expect(mf__own_ring_holds(own));
    finish_threads();
}

/* As where another thread has to commit it: this one may exit. */
Test(ring_channel, foreign_answers_to_what_came_on_an_own_ring_go_to_the_shared_one)
{
    struct asker a;
    pthread_t thread;

    start_with_own();
    one_after_the_other(1);
    stop_threads();
    io.own = with_entry();
    ask_access(&a);
    expect(FUSE_ACCESS);
    cr_expect_eq(counts().own, 1);
    cr_assert_eq(pthread_create(&thread, NULL, answer_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    cr_expect_eq(entries_apart(), 0);
    cr_expect_eq(receive(), -EINTR);
    cr_expect_eq(asked(&a), -EDOM);
    finish_threads();
}

Test(ring_channel, a_commit_on_an_own_ring_is_repeated)
{
    start_with_own();
    one_after_the_other(1);
    for (int error = 0; error < 2; error++) {
        fail.error = error ? -EBUSY : -EAGAIN;
        fail.submits = 3;
        one_after_the_other(3);
        cr_expect_eq(fail.submits, 0);
    }
    cr_expect_eq(counts().own, 6);
    end_receivers(NULL, 0);
}

Test(ring_channel, the_kernel_may_want_a_commit_on_an_own_ring_once_more)
{
    start_with_own();
    one_after_the_other(1);
    mf__vk_set_fault(p.vk,
                     &(struct mf__vk_fault){ .op = FUSE_IO_URING_CMD_COMMIT_AND_FETCH, .count = 2, .error = -EAGAIN });
    one_after_the_other(3);
    cr_expect_eq(counts().own, 3);
    cr_expect_eq(entries_apart(), 1);
    end_receivers(NULL, 0);
}

Test(ring_channel, who_waits_on_his_own_ring_learns_of_the_end)
{
    struct mf__own_ring *own = NULL;

    start_with_own();
    one_after_the_other(1);
    stop_threads();
    own = with_entry();
    io.own = own;
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(receive(), -ENODEV);
    cr_expect_not(mf__own_ring_holds(own));
    finish_threads();
}

static int no_attach(void *kernel, int fd, struct mf__channel *device)
{
    (void)kernel;
    (void)fd;
    (void)device;
    return -EBADF;
}

Test(ring_channel, own_rings_may_be_refused)
{
    struct mf__own_ring *own, *again;

    begin(1);
    sys.setup = no_setup;
    cr_expect_eq(mf__ring_take_own(ring, &own), -EMFILE);
    sys.setup = mf__vk_calls.setup;
    sys.attach = no_attach;
    cr_expect_eq(mf__ring_take_own(ring, &own), -EBADF);
    sys.attach = mf__vk_calls.attach;
    cr_expect_eq(mf__vk_urings(p.vk), 1);
    cr_expect_eq(mf__ring_take_own(ring, &own), 0);
    mf__own_ring_give(own);
    cr_expect_eq(mf__ring_take_own(ring, &again), 0);
    cr_expect_eq(again, own, "what was given back is taken before another is made");
    mf__ring_shut(ring);
    cr_expect_eq(mf__vk_urings(p.vk), 0);
    cr_expect_eq(mf__ring_take_own(ring, &again), -ENODEV);
    cr_expect_eq(mf__vk_urings(p.vk), 0);
    finish();
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

Test(ring_channel, the_end_has_the_devices_reason)
{
    connect_with(2, 0, false);
    end_init(&p.end, FUSE_OVER_IO_URING | FUSE_ABORT_ERROR);
    make();
    io.recv = calloc(1, PAYLOAD + 4096);
    io.recv_size = PAYLOAD + 4096;
    one_request();
    mf_vkernel_abort(p.vk);
    cr_expect_eq(receive(), -ECONNABORTED);
    free(io.recv);
    finish();
}

Test(ring_channel, all_entries_come_back_at_the_end)
{
    start_with_own();
    one_after_the_other(1);
    stop_threads();
    cr_expect_eq(entries_apart(), 1);
    cr_expect_not(mf__ring_take_back(ring), "the kernel has them");
    mf_vkernel_abort(p.vk);
    cr_expect(mf__ring_take_back(ring));
    cr_expect(mf__ring_take_back(ring), "they are back");
    finish_threads();
}

Test(ring_channel, nothing_is_waited_for_from_a_ring_that_was_refused)
{
    begin_refused();
    cr_expect(mf__ring_take_back(ring));
    finish();
}

Test(ring_channel, an_answer_that_waits_at_the_end_takes_its_entry_along)
{
    pthread_t thread;
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    mf_vkernel_abort(p.vk);
    cr_expect_eq(asked(&a), -ECONNABORTED);
    cr_expect_not(mf__ring_take_back(ring), "one is in hand");
    cr_assert_eq(pthread_create(&thread, NULL, answer_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    cr_expect(mf__ring_take_back(ring));
    finish();
}

Test(ring_channel, what_comes_after_it_was_shut_goes_nowhere)
{
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    mf__ring_shut(ring);
    mf__ring_shut(ring);
    cr_expect_eq(mf__vk_urings(p.vk), 0);
    cr_expect_eq(answer(0, NULL, 0), -ENODEV);
    cr_expect_eq(receive(), -ENODEV);
    ring->ops->wake(ring);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(asked(&a), -ECONNABORTED);
    finish();
}

/* Laid when no reader was left to commit it. */
Test(ring_channel, shutting_it_sends_the_answers_that_wait)
{
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    io.own_thread = false;
    cr_expect_eq(answer(-EXDEV, NULL, 0), 0);
    mf__ring_shut(ring);
    cr_expect_eq(asked(&a), -EXDEV);
    finish();
}

Test(ring_channel, entries_in_hand_at_the_end_are_gone_with_their_answer)
{
    struct asker a;

    begin(1);
    ask_access(&a);
    expect(FUSE_ACCESS);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(asked(&a), -ECONNABORTED);
    cr_expect_eq(answer(0, NULL, 0), 0);
    cr_expect_eq(receive(), -ENODEV);
    finish();
}

/* ---- payloads -------------------------------------------------------------------------------------------- */

Test(ring_channel, payloads_up_to_the_limit)
{
    struct fuse_read_in in = { .size = PAYLOAD };
    uint8_t *data = malloc(PAYLOAD), *out = calloc(1, PAYLOAD);
    struct asker a;

    memset(data, 'x', PAYLOAD);
    begin(1);
    ask(&a, FUSE_READ, &in, sizeof(in), out, PAYLOAD);
    expect(FUSE_READ);
    cr_expect_geq(io.body_size, PAYLOAD);
    cr_expect_eq(answer(0, data, PAYLOAD), 0);
    cr_expect_eq(asked(&a), 0);
    cr_expect_eq(a.out_len, PAYLOAD);
    cr_expect_arr_eq(out, data, PAYLOAD);
    free(data);
    free(out);
    finish();
}

/* An answer that the entry has no room for is an error of the caller's, not a write past the buffer. */
Test(ring_channel, answers_beyond_the_limit_fail)
{
    struct fuse_read_in in = { .size = UINT32_MAX };
    uint8_t *data = calloc(1, PAYLOAD + 1);
    struct iovec huge[2] = { { data, SIZE_MAX - 10 }, { data, SIZE_MAX - 10 } };
    struct asker a;

    begin(1);
    ask(&a, FUSE_READ, &in, sizeof(in), NULL, 0);
    expect(FUSE_READ);
    cr_expect_eq(answer(0, data, PAYLOAD + 1), -EINVAL);
    cr_expect_eq(asked(&a), -EIO);
    ask(&a, FUSE_READ, &in, sizeof(in), NULL, 0);
    expect(FUSE_READ);
    cr_expect_eq(ring->ops->send(ring, &io, io.msg.hdr.unique, 0, huge, 2), -EINVAL);
    cr_expect_eq(asked(&a), -EIO);
    free(data);
    finish();
}

/* An answer that is built beside the names of its request, or out of them. */
Test(ring_channel, answers_move_to_their_place)
{
    uint8_t out[128];
    struct fuse_getxattr_in in = { .size = 64 };
    struct iovec parts[2] = { { &in, sizeof(in) }, { (void *)(uintptr_t) "user.name", 10 } };
    uint8_t all[sizeof(in) + 10];
    struct iovec pieces[3];
    struct asker a;

    mf__vk_gather(all, 0, sizeof(all), parts, 2);
    begin(1);
    ask(&a, FUSE_GETXATTR, all, sizeof(all), out, sizeof(out));
    expect(FUSE_GETXATTR);
    cr_expect_str_eq((const char *)io.msg.body, "user.name");
    memcpy(io.body, "built", 5);
    cr_expect_str_eq((const char *)io.msg.body, "user.name", "it lies beside");
    cr_expect_eq(answer(0, io.body, 5), 0);
    cr_expect_eq(asked(&a), 0);
    cr_expect_arr_eq(out, "built", 5);
    ask(&a, FUSE_GETXATTR, all, sizeof(all), out, sizeof(out));
    expect(FUSE_GETXATTR);
    cr_expect_eq(answer(0, io.msg.body + 5, 4), 0); /* a part of the request itself */
    cr_expect_eq(asked(&a), 0);
    cr_expect_arr_eq(out, "name", 4);
    ask(&a, FUSE_GETXATTR, all, sizeof(all), out, sizeof(out));
    expect(FUSE_GETXATTR);
    pieces[0] = (struct iovec){ (void *)(uintptr_t) "three ", 6 };
    pieces[1] = (struct iovec){ NULL, 0 };
    pieces[2] = (struct iovec){ (void *)(uintptr_t) "pieces", 6 };
    cr_expect_eq(ring->ops->send(ring, &io, io.msg.hdr.unique, 0, pieces, 3), 0);
    cr_expect_eq(asked(&a), 0);
    cr_expect_arr_eq(out, "three pieces", 12);
    finish();
}

/* What lies behind a short structure is of older requests. */
Test(ring_channel, a_short_structure_is_known_by_the_length)
{
    struct asker a;

    begin(1);
    ask(&a, FUSE_READ, "short", 5, NULL, 0);
    expect(FUSE_READ);
    cr_expect_eq(io.msg.args_len, 5);
    cr_expect_eq(io.msg.body_len, 0);
    cr_expect_eq(answer(-EIO, NULL, 0), 0);
    cr_expect_eq(asked(&a), -EIO);
    finish();
}

/* ---- pools (7.46) ---------------------------------------------------------------------------------------- */

static void begin_pool(uint32_t queues)
{
    connect_with(queues, 46, true);
    opts.pool = true;
    make();
}

Test(ring_channel, payloads_lie_in_a_pool)
{
    struct fuse_write_in in = { .size = 11 };
    struct iovec parts[2] = { { &in, sizeof(in) }, { (void *)(uintptr_t) "hello world", 11 } };
    uint8_t all[sizeof(in) + 11];
    const uint8_t *seen[6];

    mf__vk_gather(all, 0, sizeof(all), parts, 2);
    begin_pool(2);
    for (int i = 0; i < 6; i++) {
        struct fuse_write_out wrote = { .size = 11 };
        uint8_t out[8];
        struct asker a;

        mf__vk_set_cpu(p.vk, i / 3);
        ask(&a, FUSE_WRITE, all, sizeof(all), out, sizeof(out));
        expect(FUSE_WRITE);
        cr_expect_arr_eq(io.msg.body, "hello world", 11);
        seen[i] = io.msg.body;
        memcpy(io.body, &wrote, sizeof(wrote));
        cr_expect_arr_eq(io.msg.body, "hello world", 11);
        cr_expect_eq(answer(0, io.body, sizeof(wrote)), 0);
        cr_expect_eq(asked(&a), 0);
        cr_expect_arr_eq(out, &wrote, sizeof(wrote));
    }
    /* The same entry, but another piece each time; and each queue has a pool of its own. */
    cr_expect_eq(seen[1] - seen[0], PAYLOAD);
    cr_expect_eq(seen[2] - seen[1], PAYLOAD);
    cr_expect_neq(seen[3], seen[0]);
    finish();
}

Test(ring_channel, a_pool_serves_all_entries_at_once)
{
    struct asker a[4];
    struct mf__io ios[4];

    begin_pool(1);
    for (int i = 0; i < 4; i++) {
        ask(&a[i], FUSE_UNLINK, &"a\0b\0c\0d"[2 * i], 2, NULL, 0);
        expect(FUSE_UNLINK);
        cr_expect_eq(io.msg.body_len, 2);
        ios[i] = io;
        io.commit_id = 0; /* another slot's turn */
        for (int j = 0; j < i; j++)
            cr_expect_neq(ios[i].msg.body, ios[j].msg.body);
    }
    for (int i = 3; i >= 0; i--) {
        io = ios[i];
        cr_expect_eq(answer(-EBUSY, NULL, 0), 0);
    }
    for (int i = 0; i < 4; i++)
        cr_expect_eq(asked(&a[i]), -EBUSY);
    finish();
}

Test(ring_channel, a_pool_that_is_not_known_is_a_refusal)
{
    connect_with(1, 45, true);
    opts.pool = true;
    make();
    while (mf__ring_state(ring) >= 0)
        cr_assert_eq(receive(), -EINTR);
    cr_expect_eq(mf__ring_state(ring), -EINVAL);
    finish();
}

/* An offset or a length that the kernel never says does not lead outside. */
static struct {
    uint32_t offset, size;
} lie;

static int lying_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    int rc = mf__vk_calls.enter(kernel, fd, submit, wait, flags);
    struct mf_vkernel *vk = kernel;

    pthread_mutex_lock(&vk->lock);
    for (uint32_t i = 0; i < vk->opts.queues; i++) {
        struct mf__vk_queue *q = &vk->queues[i];

        for (struct mf__vk_link *l = q->busy.next; l != &q->busy; l = l->next) {
            struct mf__vk_entry *e = MF__VK_OF(l, struct mf__vk_entry, at);

            e->head->ring_ent_in_out.padding += lie.offset;
            if (lie.size)
                e->head->ring_ent_in_out.payload_sz = lie.size;
        }
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

Test(ring_channel, impossible_places_are_malformed_messages)
{
    static const struct {
        uint32_t offset, size;
        bool pool;
    } lies[] = { { 0, PAYLOAD + 1, false }, { 0, UINT32_MAX, false },     { 0, PAYLOAD + 1, true },
                 { 4 * PAYLOAD, 0, true },  { 3 * PAYLOAD + 1, 0, true }, { UINT32_MAX - PAYLOAD, 0, true } };

    for (size_t i = 0; i < MF__ARRAY_SIZE(lies); i++) {
        struct asker a;

        memset(&io, 0, sizeof(io));
        connect_with(1, 46, true);
        opts.pool = lies[i].pool;
        sys.enter = lying_enter;
        lie.offset = lies[i].offset;
        lie.size = lies[i].size;
        make();
        ask(&a, FUSE_UNLINK, "name", 5, NULL, 0);
        expect(0); /* no opcode: it could not be split */
        lie.size = 0;
        lie.offset = 0;
        cr_expect_eq(answer(-EIO, NULL, 0), 0);
        cr_expect_eq(asked(&a), -EIO);
        finish();
    }
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static size_t resident(void)
{
    size_t pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "re");

    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%zu %zu", &ignored, &pages), 2);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* 128 queues with 32 entries of 1 MiB: what is not used costs address space. */
#define BUDGET (4u << 20)

Test(ring_channel, entries_that_are_not_used_cost_little)
{
    size_t before;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    cr_skip_test("a sanitizer's memory is counted, too");
#endif
    connect_with(128, 0, true);
    opts.depth = 32;
    opts.max_payload = 1u << 20;
    before = resident();
    make();
    for (int i = 0; i < 128; i++)
        one_request();
    cr_expect_eq(idle_entries(), 128 * 32);
    cr_expect_lt(resident() - before, BUDGET, "%zu bytes", resident() - before);
    printf("128 queues, 4096 entries of 1 MiB, 128 requests: %zu KiB resident\n", (resident() - before) / 1024);
    finish();
}
