/* SPDX-License-Identifier: MIT */
/* Answers that come later, from whichever thread. */
#include <string.h>
#include <sys/stat.h>

#include "fs_rig.h"

#define KEPT_MAX 1024u

static struct fs_rig rig;

/* Requests that handlers have put aside. */
static struct {
    pthread_mutex_t lock;
    struct mf_req *reqs[KEPT_MAX];
    unsigned count;
    bool by_value; /* kept by the return value alone */
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void keep_req(struct mf_req *req)
{
    pthread_mutex_lock(&kept.lock);
    cr_assert(kept.count < KEPT_MAX);
    kept.reqs[kept.count++] = req;
    pthread_mutex_unlock(&kept.lock);
}

static unsigned kept_count(void)
{
    unsigned n;

    pthread_mutex_lock(&kept.lock);
    n = kept.count;
    pthread_mutex_unlock(&kept.lock);
    return n;
}

static int32_t keep(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op == MF_OP_FORGET)
        return 0;
    if (!kept.by_value)
        cr_expect_eq(mf_req_defer(c->req), 0);
    keep_req(c->req);
    return MF_ANSWER_LATER;
}

static void setup(void)
{
    fs_init(&rig);
    rig.script = keep;
}

TestSuite(session_async, .init = setup, .timeout = 30);

/* A reply from a thread that the engine has never seen. */
struct reply {
    struct mf_req *req;
    int (*fn)(struct mf_req *req);
    int rc;
};

static void *reply_main(void *arg)
{
    struct reply *p = arg;

    p->rc = p->fn(p->req);
    return NULL;
}

static int from_elsewhere(struct mf_req *req, int (*fn)(struct mf_req *req))
{
    struct reply p = { .req = req, .fn = fn };
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, reply_main, &p), 0);
    pthread_join(thread, NULL);
    return p.rc;
}

static int reply_attr(struct mf_req *req)
{
    struct mf_attr a = fs_attr(mf_req_call(req)->node);

    return mf_reply_attr(req, &a, 0);
}

static int reply_bytes(struct mf_req *req)
{
    const struct mf_call *c = mf_req_call(req);
    uint8_t *data = malloc(c->length);
    int rc;

    fs_fill(c->node, c->offset, data, c->length);
    rc = mf_reply_data(req, data, c->length);
    free(data);
    return rc;
}

static int reply_buffer(struct mf_req *req)
{
    const struct mf_call *c = mf_req_call(req);
    uint64_t room;
    void *buf = mf_req_buffer(req, &room);

    fs_fill(c->node, c->offset, buf, c->length);
    return mf_reply_buffer(req, c->length);
}

static int reply_error(struct mf_req *req)
{
    return mf_reply_err(req, EDOM);
}

static void expect_bytes(uint64_t id, uint64_t node, uint64_t size)
{
    uint8_t *data = malloc(size);
    uint64_t len = size;

    cr_expect_eq(mf_client_wait(rig.vk, id, data, &len), 0);
    cr_expect_eq(len, size);
    cr_expect(fs_right(node, 0, data, size));
    free(data);
}

/* ---- one at a time, step by step ----------------------------------------------------------------------- */

FS_TEST(session_async, answered_by_a_foreign_thread)
{
    uint64_t id;

    fs_step_init(&rig, 2);
    for (uint32_t reader = 0; reader < 2; reader++) {
        for (int by_value = 0; by_value < 2; by_value++) {
            kept.by_value = by_value;
            kept.count = 0;
            id = fs_send_getattr(&rig, 5);
            fs_step(&rig, reader);
            cr_assert_eq(kept.count, 1);
            cr_expect_eq(fs_stats(&rig, reader).in_flight, 1);
            cr_expect_eq(from_elsewhere(kept.reqs[0], reply_attr), 0);
            cr_expect_eq(fs_wait(&rig, id), 0);
            cr_expect_eq(fs_stats(&rig, reader).in_flight, 0);
            cr_expect_eq(from_elsewhere(kept.reqs[0], reply_attr), -EALREADY);
            cr_expect_eq(from_elsewhere(kept.reqs[0], reply_error), -EALREADY);
        }
    }
    /* One of the virtual kernel's channels per reader, and no answer on the wrong one: fs_end() looks. */
    cr_expect_eq(mf_vkernel_reads(rig.vk, 1), 2);
}

FS_TEST(session_async, all_sizes_of_data_from_foreign_threads)
{
    const uint32_t sizes[] = { 1, 511, 512, 513, 4096, 65536, 1u << 20 };

    fs_step_init(&rig, 1);
    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        for (int buffer = 0; buffer < 2; buffer++) {
            uint64_t id = fs_send_read(&rig, 9, sizes[i]);

            kept.count = 0;
            fs_step(&rig, 0);
            cr_expect_eq(from_elsewhere(kept.reqs[0], buffer ? reply_buffer : reply_bytes), 0);
            expect_bytes(id, 9, sizes[i]);
        }
    }
}

FS_TEST(session_async, answers_in_any_order)
{
    uint64_t ids[32];

    fs_step_init(&rig, 1);
    for (uint64_t i = 0; i < 32; i++) {
        ids[i] = fs_send_read(&rig, FS_FILE0 + i, 4096);
        fs_step(&rig, 0);
    }
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 32);
    for (uint64_t i = 0; i < 32; i++)
        cr_expect_eq(reply_bytes(kept.reqs[(i * 7 + 3) % 32]), 0);
    for (uint64_t i = 0; i < 32; i++)
        expect_bytes(ids[i], FS_FILE0 + i, 4096);
}

static int32_t answered_inside(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (kept.by_value)
        cr_expect_eq(mf_req_defer(c->req), 0);
    cr_expect_eq(from_elsewhere(c->req, reply_attr), 0);
    cr_expect_eq(mf_reply_err(c->req, EPERM), -EALREADY);
    cr_expect_eq(mf_req_defer(c->req), -EALREADY);
    return kept.by_value ? MF_ANSWER_LATER : MF_ANSWERED;
}

FS_TEST(session_async, answered_by_a_foreign_thread_while_the_handler_runs)
{
    fs_step_init(&rig, 1);
    rig.script = answered_inside;
    for (int i = 0; i < 20; i++) {
        uint64_t id = fs_send_getattr(&rig, 5);

        kept.by_value = i % 2;
        fs_step(&rig, 0);
        cr_expect_eq(fs_wait(&rig, id), 0);
    }
    cr_expect_leq(rig.s->readers[0]->slots, 4, "slots are lost: %u", rig.s->readers[0]->slots);
}

static int32_t keep_and_answer(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    cr_expect_eq(mf_req_defer(c->req), 0);
    cr_expect_eq(mf_req_defer(c->req), 0, "twice is as good as once");
    return -EPERM;
}

FS_TEST(session_async, who_keeps_may_still_answer_at_once)
{
    fs_step_init(&rig, 2);
    rig.script = keep_and_answer;
    for (int i = 0; i < 20; i++) {
        uint64_t id = fs_send_getattr(&rig, 5);

        fs_step(&rig, 1);
        cr_expect_eq(fs_wait(&rig, id), -EPERM);
    }
    cr_expect_leq(rig.s->readers[1]->slots, 4);
    /* Session, reader: nobody else holds the channel any more. */
    cr_expect_eq(atomic_load(&rig.s->channels[1]->refs), 2);
}

static int32_t answer_the_others(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    (void)c;
    cr_expect_eq(reply_attr(kept.reqs[0]), 0);
    return -EPERM;
}

FS_TEST(session_async, a_handler_answers_another_readers_request)
{
    uint64_t first, second;

    fs_step_init(&rig, 2);
    first = fs_send_getattr(&rig, 5);
    fs_step(&rig, 0);
    second = fs_send_getattr(&rig, 6);
    rig.script = answer_the_others;
    fs_step(&rig, 1);
    cr_expect_eq(fs_wait(&rig, first), 0);
    cr_expect_eq(fs_wait(&rig, second), -EPERM);
    cr_expect_eq(fs_stats(&rig, 0).replies, 1);
    cr_expect_eq(fs_stats(&rig, 1).replies, 1);
}

FS_TEST(session_async, a_kept_request_keeps_its_channel)
{
    uint64_t id;

    fs_step_init(&rig, 2);
    id = fs_send_getattr(&rig, 5);
    fs_step(&rig, 1);
    cr_expect_eq(atomic_load(&rig.s->channels[1]->refs), 3);
    cr_expect_eq(reply_attr(kept.reqs[0]), 0);
    cr_expect_eq(atomic_load(&rig.s->channels[1]->refs), 2);
    cr_expect_eq(fs_wait(&rig, id), 0);
}

/* ---- tokens that are kept too long ----------------------------------------------------------------------- */

FS_TEST(session_async, a_stale_token_touches_nothing)
{
    struct mf_req *stale[MF__TOKENS];
    unsigned n = 0, same = 0;

    fs_step_init(&rig, 1);
    for (unsigned round = 0; round < MF__TOKENS - 1; round++) {
        uint64_t id = fs_send_getattr(&rig, 5);

        kept.count = 0;
        fs_step(&rig, 0);
        for (unsigned i = 0; i < n; i++) {
            if (mf__token_slot(stale[i]) != mf__token_slot(kept.reqs[0]))
                continue;
            same++;
            cr_expect_eq(reply_error(stale[i]), -EALREADY, "round %u, token %u", round, i);
            cr_expect_eq(mf_req_defer(stale[i]), -EALREADY);
            cr_expect_eq(mf_req_interrupted(stale[i]), -EALREADY);
        }
        cr_expect_eq(reply_attr(kept.reqs[0]), 0);
        cr_expect_eq(fs_wait(&rig, id), 0, "a stale token answered somebody else's request");
        stale[n++] = kept.reqs[0];
    }
    cr_expect(same > 1000, "no slot was used again");
}

/* ---- one request, several who answer ---------------------------------------------------------------------- */

#define RACERS 4

static struct {
    pthread_barrier_t start, end;
    struct mf_req *req;
    _Atomic unsigned won, lost, other;
} race;

static void *race_main(void *arg)
{
    unsigned rounds = *(unsigned *)arg;

    while (rounds--) {
        int rc;

        pthread_barrier_wait(&race.start);
        rc = mf_reply_err(race.req, EDOM);
        atomic_fetch_add(rc == 0 ? &race.won : rc == -EALREADY ? &race.lost : &race.other, 1);
        pthread_barrier_wait(&race.end);
    }
    return NULL;
}

FS_TEST(session_async, exactly_one_of_many_answers_counts)
{
    unsigned rounds = 300;
    pthread_t threads[RACERS];

    pthread_barrier_init(&race.start, NULL, RACERS + 1);
    pthread_barrier_init(&race.end, NULL, RACERS + 1);
    fs_run(&rig);
    for (int i = 0; i < RACERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, race_main, &rounds), 0);
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t id = fs_send_getattr(&rig, 5);

        FS_UNTIL(kept_count() == i + 1);
        race.req = kept.reqs[i];
        pthread_barrier_wait(&race.start);
        cr_expect_eq(fs_wait(&rig, id), -EDOM);
        pthread_barrier_wait(&race.end);
    }
    for (int i = 0; i < RACERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(race.won, rounds);
    cr_expect_eq(race.lost, rounds * (RACERS - 1));
    cr_expect_eq(race.other, 0);
}

/* ---- limits ------------------------------------------------------------------------------------------------ */

FS_TEST(session_async, no_more_than_max_outstanding_are_taken)
{
    uint64_t ids[7];

    rig.opts.max_outstanding = 4;
    fs_run(&rig);
    for (int i = 0; i < 7; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept_count() == 4);
    usleep(30000);
    cr_expect_eq(kept_count(), 4);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 4);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 7);
    for (unsigned i = 0; i < 7; i++) {
        /* Each answer makes room for one more. */
        FS_UNTIL(kept_count() >= (i + 4 < 7 ? i + 4 : 7));
        cr_expect_eq(reply_attr(kept.reqs[i]), 0);
    }
    for (int i = 0; i < 7; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
    cr_expect_eq(rig.s->readers[0]->slots, 4);
}

FS_TEST(session_async, slots_grow_to_the_limit_and_no_further)
{
    uint64_t ids[40];

    rig.opts.max_outstanding = 37;
    fs_run(&rig);
    for (int i = 0; i < 40; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept_count() == 37);
    usleep(20000);
    cr_expect_eq(kept_count(), 37);
    for (unsigned i = 0; i < 40; i++) {
        FS_UNTIL(kept_count() > i);
        cr_expect_eq(reply_attr(kept.reqs[i]), 0);
    }
    for (int i = 0; i < 40; i++)
        cr_expect_eq(fs_wait(&rig, ids[i]), 0);
}

FS_TEST(session_async, stopping_with_all_slots_kept)
{
    uint64_t ids[6];

    rig.opts.max_outstanding = 4;
    fs_run(&rig);
    for (int i = 0; i < 6; i++)
        ids[i] = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept_count() == 4);
    cr_expect_eq(fs_stop(&rig), 0);
    for (int i = 0; i < 6; i++) {
        int rc = fs_wait(&rig, ids[i]);

        cr_expect(rc == -ENOTCONN || rc == -ECONNABORTED, "%d", rc);
    }
    for (int i = 0; i < 4; i++)
        cr_expect_eq(reply_attr(kept.reqs[i]), -EALREADY, "it has been answered by the session");
}

FS_TEST(session_async, what_nobody_answers_is_answered_at_the_end)
{
    uint64_t id;

    fs_run(&rig);
    id = fs_send_getattr(&rig, FS_FILE0);
    FS_UNTIL(kept_count() == 1);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(fs_wait(&rig, id), -ENOTCONN);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 0);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
    cr_expect_eq(reply_attr(kept.reqs[0]), -EALREADY);
}

/* ---- many at once ------------------------------------------------------------------------------------------ */

#define CLIENTS 6u
#define ROUNDS 120u

static struct {
    struct mf_req *ring[KEPT_MAX];
    unsigned in, out;
    bool end;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic unsigned bad;
} work = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static int32_t hand_on(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    if (c->op != MF_OP_READ || c->node % 3 == 0)
        return FS_DEFAULT;
    cr_expect_eq(mf_req_defer(c->req), 0);
    pthread_mutex_lock(&work.lock);
    work.ring[work.in++ % KEPT_MAX] = c->req;
    pthread_cond_signal(&work.changed);
    pthread_mutex_unlock(&work.lock);
    return MF_ANSWER_LATER;
}

static void *worker_main(void *arg)
{
    (void)arg;
    for (;;) {
        struct mf_req *req = NULL;

        pthread_mutex_lock(&work.lock);
        while (work.in == work.out && !work.end)
            pthread_cond_wait(&work.changed, &work.lock);
        if (work.in != work.out)
            req = work.ring[work.out++ % KEPT_MAX];
        pthread_mutex_unlock(&work.lock);
        if (!req)
            return NULL;
        if (reply_bytes(req) != 0)
            atomic_fetch_add(&work.bad, 1);
    }
}

static void *client_main(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    uint8_t buf[8192];

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t node = FS_FILE0 + 1 + (seed * 31 + i * 7) % (FS_FILES - 1);
        uint64_t len = fs_size(node) < sizeof(buf) ? fs_size(node) : sizeof(buf);
        int64_t n = mf_client_read(rig.vk, node, node, buf, len, 0);

        if (n != (int64_t)len || !fs_right(node, 0, buf, len))
            atomic_fetch_add(&work.bad, 1);
    }
    return NULL;
}

FS_TEST(session_async, many_readers_workers_and_clients)
{
    pthread_t workers[3], clients[CLIENTS];
    uint64_t requests = 0, replies = 0;

    rig.opts.readers = 4;
    rig.opts.max_outstanding = 8;
    rig.script = hand_on;
    fs_run(&rig);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&workers[i], NULL, worker_main, NULL), 0);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        cr_assert_eq(pthread_create(&clients[i], NULL, client_main, (void *)i), 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    pthread_mutex_lock(&work.lock);
    work.end = true;
    pthread_cond_broadcast(&work.changed);
    pthread_mutex_unlock(&work.lock);
    for (int i = 0; i < 3; i++)
        pthread_join(workers[i], NULL);
    cr_expect_eq(fs_stop(&rig), 0);
    cr_expect_eq(work.bad, 0, "%u wrong bytes or answers", work.bad);
    for (uint32_t i = 0; i < 4; i++) {
        requests += fs_stats(&rig, i).requests;
        replies += fs_stats(&rig, i).replies;
        cr_expect_eq(fs_stats(&rig, i).in_flight, 0);
        cr_expect_eq(mf_vkernel_reads(rig.vk, i), fs_stats(&rig, i).requests + (i == 0), "channel %u", i);
    }
    cr_expect_eq(requests, CLIENTS * ROUNDS);
    cr_expect_eq(replies, CLIENTS * ROUNDS);
}
