/* SPDX-License-Identifier: MIT */
/* How many readers receive on the device at once: door.h. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs_rig.h"

#define SLEEPERS 16u

static struct fs_rig rig;

static void setup(void)
{
    fs_init(&rig);
    rig.opts.readers = 0; /* as many as it takes */
    rig.opts.uring = MF_URING_OFF;
}

TestSuite(session_door, .init = setup, .timeout = 60);

static void run(void)
{
    fs_run(&rig);
    FS_UNTIL(atomic_load(&rig.s->phase) == MF__RUNNING);
}

static unsigned in_state(enum mf__reader_state state)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count); i++)
        n += atomic_load(&rig.s->readers[i]->state) == state;
    return n;
}

static bool shut(void)
{
    return atomic_load(&rig.s->door.shut);
}

static unsigned seats(void)
{
    return atomic_load(&rig.s->crews[0].base);
}

/* A request that is answered at once. */
static void ask(void)
{
    cr_expect_eq(fs_wait(&rig, fs_send_getattr(&rig, 1)), 0);
}

/* Such requests, so that there is something to judge by, until that was done. */
static bool comes_true(bool (*condition)(void))
{
    for (unsigned i = 0; i < 20000 && !condition(); i++) {
        ask();
        usleep(200);
    }
    return condition();
}

/* As the statistics have it. */
static unsigned long long told(const char *what)
{
    int fd = memfd_create("stats", MFD_CLOEXEC);
    unsigned long long n = 0;
    char text[16384] = "";
    char *line, *value;

    cr_expect_eq(mf_session_write_stats(rig.s, fd), 0);
    cr_assert_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
    close(fd);
    line = strstr(text, "{\"device\":0,");
    cr_assert_not_null(line, "%s", text);
    value = strstr(line, what);
    cr_assert_not_null(value, "%s", line);
    cr_expect_eq(sscanf(value + strlen(what), "\":%llu", &n), 1, "%s", line);
    return n;
}

/* Nobody needs more members than seats any more, so some time later there are none. */
static void skip_if_shrunk(void)
{
    if (atomic_load(&rig.s->crews[0].members) <= seats())
        cr_skip_test("the crew has shrunk already");
}

/* Many handlers have waited, and do not any more: the crew has more members than seats. */
static void grow(void)
{
    uint64_t ids[SLEEPERS], start;

    run();
    if (seats() >= SLEEPERS)
        cr_skip_test("needs fewer CPUs than %u", SLEEPERS);
    fs_occupy(&rig, SLEEPERS, ids);
    cr_expect_geq(told("opened"), 1, "so many handlers wait, and only some may receive");
    usleep(50000);
    cr_expect_leq(told("readers"), 2 * SLEEPERS, "readers are made that nobody needs");
    fs_let_go(&rig, SLEEPERS, ids);
    start = mf__now_ns();
    cr_assert(comes_true(shut), "the door stays open");
    if (mf__now_ns() - start < MF__CREW_WINDOW * (MF_SECOND / 1000))
        cr_assert_gt(atomic_load(&rig.s->crews[0].members), seats());
    skip_if_shrunk();
}

static unsigned seated(void)
{
    unsigned n;

    pthread_mutex_lock(&rig.s->door.lock);
    n = rig.s->door.seated;
    pthread_mutex_unlock(&rig.s->door.lock);
    return n;
}

/* And nobody is about to. */
static bool only_seats_receive(void)
{
    return in_state(MF__READER_RECEIVING) == seats() && in_state(MF__READER_BUSY) == 0;
}

FS_TEST(session_door, shut_from_the_start)
{
    run();
    cr_expect(shut());
    FS_UNTIL(only_seats_receive());
    ask();
    cr_expect(shut());
}

/* It may have been about to receive as the door was shut. */
FS_TEST(session_door, whoever_receives_without_a_seat_is_called_back)
{
    bool done = false;

    grow();
    FS_UNTIL(only_seats_receive());
    pthread_mutex_lock(&rig.s->door.lock);
    for (uint32_t i = 0; i < atomic_load(&rig.s->reader_count) && !done; i++) {
        struct mf__reader *r = rig.s->readers[i];

        done = atomic_load(&r->state) == MF__READER_RECEIVING;
        if (done) {
            atomic_store(&r->seated, false);
            rig.s->door.seated--;
        }
    }
    pthread_mutex_unlock(&rig.s->door.lock);
    cr_assert(done);
    skip_if_shrunk(); /* nobody would take the seat */
    mf__door_tell(rig.s);
    mf__monitor_wake(rig.s);
    FS_UNTIL(seated() == seats() && only_seats_receive());
}

FS_TEST(session_door, surplus_readers_wait_outside_while_handlers_return_at_once)
{
    grow();
    FS_UNTIL(only_seats_receive());
    skip_if_shrunk();
    cr_expect_gt(in_state(MF__READER_WAITING), 0);
    cr_expect_eq(seated(), seats());
}

/* Whoever waits takes the seat of one whose handler does, with nobody new. */
FS_TEST(session_door, a_handler_that_waits_loses_its_seat)
{
    uint64_t ids[SLEEPERS], growths, blocked;
    unsigned n;

    grow();
    FS_UNTIL(only_seats_receive());
    skip_if_shrunk();
    n = seats();
    growths = atomic_load(&rig.s->growths);
    blocked = told("blocked");
    fs_occupy(&rig, n, ids);
    ask();
    cr_expect_eq(atomic_load(&rig.s->growths), growths, "a reader was made though one waited");
    cr_expect_gt(told("blocked"), blocked);
    fs_let_go(&rig, n, ids);
}

/* A few among many do not open it. */
FS_TEST(session_door, a_handler_that_waits_now_and_then_does_not_open_it)
{
    grow();
    for (unsigned round = 0; round < 8 && shut(); round++) {
        uint64_t id;

        fs_occupy(&rig, 1, &id);
        for (unsigned i = 0; i < 400; i++)
            ask();
        fs_let_go(&rig, 1, &id);
    }
    cr_expect(shut());
}

/* Where the others serve so many requests that nothing else tells that they are one too few. */
FS_TEST(session_door, a_handler_that_waits_is_made_up_for_among_many_that_are_fast)
{
    uint64_t id, until = mf__now_ns() + MF_SECOND / 5;
    unsigned n;

    run();
    n = seats();
    if (n < 2)
        cr_skip_test("with one CPU nobody serves beside the one that waits");
    while (mf__now_ns() < until)
        ask();
    cr_expect_eq(atomic_load(&rig.s->crews[0].members), n);
    fs_occupy(&rig, 1, &id);
    until = mf__now_ns() + 2 * MF_SECOND;
    while (atomic_load(&rig.s->crews[0].members) <= n && mf__now_ns() < until)
        ask();
    cr_expect_gt(atomic_load(&rig.s->crews[0].members), n);
    fs_let_go(&rig, 1, &id);
}

/* One in so many is not many, but they come so fast that a seat is empty for much of the time. */
FS_TEST(session_door, handlers_that_wait_often_enough_open_it)
{
    uint64_t start, blocked;

    grow();
    FS_UNTIL(only_seats_receive());
    blocked = told("blocked");
    start = mf__now_ns();
    for (unsigned round = 0; round < 400 && shut(); round++) {
        uint64_t id;

        fs_occupy(&rig, 1, &id);
        for (unsigned i = 0; i < 40; i++)
            ask();
        fs_let_go(&rig, 1, &id);
    }
    blocked = told("blocked") - blocked;
    if (shut() && (mf__now_ns() - start) * seats() > blocked * 3000000)
        cr_skip_test("the machine is too slow: %llu seats left behind", (unsigned long long)blocked);
    cr_expect_not(shut(), "%llu seats left behind", (unsigned long long)blocked);
}

static _Atomic bool had_turn; /* the last getattr's handler */

static int32_t note_turn(struct mf_call *call, struct fs_rig *r)
{
    if (call->op == MF_OP_GETATTR)
        atomic_store(&had_turn, atomic_load(&r->s->turn) == mf__self->index + 1);
    return FS_DEFAULT;
}

/* Of a language with a lock: whoever has the turn then is asleep with it. */
FS_TEST(session_door, where_many_handlers_wait_they_take_no_turns)
{
    uint64_t ids[SLEEPERS];
    unsigned seen = 0;

    rig.script = note_turn;
    fs_connect(&rig);
    rig.s->hooks.flags |= MF_UPCALL_EXCLUSIVE;
    run();
    if (!rig.s->takes_turns)
        cr_skip_test("with one CPU nobody waits for his turn awake");
    ask();
    cr_expect(had_turn);
    fs_occupy(&rig, SLEEPERS, ids);
    for (unsigned i = 0; i < 1000 && seen < 10; i++) {
        uint64_t opened = atomic_load(&rig.s->door.opened);
        bool open = !shut();

        ask();
        if (open && !shut() && atomic_load(&rig.s->door.opened) == opened) {
            cr_expect_not(had_turn);
            seen++;
        }
    }
    cr_expect_eq(seen, 10, "it does not stay open");
    fs_let_go(&rig, SLEEPERS, ids);
}

FS_TEST(session_door, one_more_reader_has_a_seat_of_its_own)
{
    unsigned before;

    run();
    before = seats();
    cr_assert_geq(mf_session_add_reader(rig.s), 0);
    cr_expect_eq(seats(), before + 1);
    FS_UNTIL(only_seats_receive());
    cr_expect(shut());
}

FS_TEST(session_door, the_end_does_not_wait_for_those_outside)
{
    uint64_t start;

    grow();
    start = mf__now_ns();
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_lt(mf__now_ns() - start, MF_SECOND);
}
