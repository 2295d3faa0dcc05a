/* SPDX-License-Identifier: MIT */
/*
 * The ring side of the virtual kernel, spoken to by hand: what each command is answered with, where requests go, how
 * they lie in an entry, and what is left when a ring, a thread or the connection is gone.
 */
#include <pthread.h>
#include <unistd.h>

#include "test_vkernel.h"
#include "transport/ring.h"

#define DEPTH 4u
#define PAYLOAD 131072u /* of the terms in test_vkernel.h */
#define QUEUES 2u

struct hand {
    struct fuse_uring_req_header head;
    uint8_t payload[PAYLOAD];
    struct iovec iov[2];
};

/* A ring, used without any engine. */
struct ring {
    struct mf_vkernel *vk;
    int fd;
    struct mf__uring_params p;
    uint8_t *maps;
    struct mf__sqe *sqes;
    size_t maps_size, sqes_size;
    struct mf__sqe *last;
};

static struct pair p;
static struct ring ring;
static struct hand hands[QUEUES * DEPTH];

static _Atomic uint32_t *word(struct ring *r, uint32_t offset)
{
    return (void *)(r->maps + offset);
}

static void ring_open(struct ring *r, struct mf_vkernel *vk, uint32_t flags)
{
    void *at;

    memset(r, 0, sizeof(*r));
    r->vk = vk;
    r->p = (struct mf__uring_params){ .flags = flags };
    r->fd = mf__vk_calls.setup(vk, 8, &r->p);
    cr_assert_geq(r->fd, 0);
    r->maps_size = r->p.sq.c + r->p.sq_entries * sizeof(uint32_t);
    r->sqes_size = r->p.sq_entries * sizeof(struct mf__sqe);
    cr_assert_eq(mf__vk_calls.map(vk, r->fd, r->maps_size, 0, &at), 0);
    r->maps = at;
    cr_assert_eq(mf__vk_calls.map(vk, r->fd, r->sqes_size, MF__URING_OFF_SQES, &at), 0);
    r->sqes = at;
}

static void ring_close(struct ring *r)
{
    mf__vk_calls.close(r->vk, r->fd);
    mf__vk_calls.unmap(r->vk, r->maps, r->maps_size);
    mf__vk_calls.unmap(r->vk, r->sqes, r->sqes_size);
}

/* The next submission; it goes out with go(). */
static struct mf__sqe *next(struct ring *r, uint64_t user_data)
{
    uint32_t i = *word(r, r->p.sq.tail) & (r->p.sq_entries - 1);
    uint32_t *array = (void *)(r->maps + r->p.sq.c);

    array[i] = i;
    r->last = &r->sqes[i];
    memset(r->last, 0, sizeof(*r->last));
    r->last->user_data = user_data;
    return r->last;
}

static int go(struct ring *r)
{
    (*word(r, r->p.sq.tail))++;
    return mf__vk_calls.enter(r->vk, r->fd, 1, 0, 0);
}

static bool completion(struct ring *r, struct mf__cqe *out)
{
    uint32_t head = *word(r, r->p.cq.head);
    struct mf__cqe *cqes = (void *)(r->maps + r->p.cq.b);

    if (head == *word(r, r->p.cq.tail))
        return false;
    *out = cqes[head & (r->p.cq_entries - 1)];
    *word(r, r->p.cq.head) = head + 1;
    return true;
}

static void expect_completion(struct ring *r, uint64_t user_data, int32_t res)
{
    struct mf__cqe cqe = { .res = 0 };

    cr_assert(completion(r, &cqe), "no completion for %llu", (unsigned long long)user_data);
    cr_assert_eq(cqe.user_data, user_data, "%llu", (unsigned long long)cqe.user_data);
    cr_assert_eq(cqe.res, res, "%d in place of %d", cqe.res, res);
}

static void expect_none(struct ring *r)
{
    struct mf__cqe cqe;

    cr_assert_not(completion(r, &cqe), "a completion of %d for %llu", cqe.res, (unsigned long long)cqe.user_data);
}

static struct mf__sqe *command(struct ring *r, uint32_t op, uint16_t queue, uint64_t id, uint64_t user_data)
{
    struct mf__sqe *sqe = next(r, user_data);
    struct fuse_uring_cmd_req cmd = { .qid = queue, .commit_id = id };

    sqe->opcode = MF__URING_OP_URING_CMD;
    sqe->flags = MF__URING_FIXED_FILE;
    sqe->cmd_op = op;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    return sqe;
}

static void enlist(struct ring *r, uint16_t queue, uint32_t hand)
{
    struct hand *h = &hands[hand];
    struct mf__sqe *sqe = command(r, FUSE_IO_URING_CMD_REGISTER, queue, 0, hand);

    h->iov[0] = (struct iovec){ .iov_base = &h->head, .iov_len = sizeof(h->head) };
    h->iov[1] = (struct iovec){ .iov_base = h->payload, .iov_len = sizeof(h->payload) };
    sqe->addr = (uintptr_t)h->iov;
    sqe->len = 2;
    cr_assert_eq(go(r), 1);
}

static void answer(struct ring *r, uint16_t queue, uint32_t hand, int error, const void *body, uint32_t len)
{
    struct hand *h = &hands[hand];

    mf__put_header(h->head.in_out, len, error, h->head.ring_ent_in_out.commit_id);
    memcpy(h->payload, body, len);
    h->head.ring_ent_in_out.payload_sz = len;
    command(r, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, queue, h->head.ring_ent_in_out.commit_id, hand);
    cr_assert_eq(go(r), 1);
}

static void answer_empty(struct ring *r, uint16_t queue, uint32_t hand)
{
    answer(r, queue, hand, 0, "", 0);
}

static void begin(void)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .queues = QUEUES, .uid = 5 };

    cr_assert_eq(mf_vkernel_new(&opts, &p.vk), 0);
    end_first(&p.end, p.vk);
    ring_open(&ring, p.vk, MF__URING_SETUP_SQE128);
    cr_assert_eq(mf__vk_calls.attach(p.vk, ring.fd, p.end.ch), 0);
}

static void agree(void)
{
    end_init(&p.end, FUSE_OVER_IO_URING);
}

/* One entry for each queue: number of the queue. */
static void get_ready(void)
{
    begin();
    agree();
    enlist(&ring, 0, 0);
    cr_assert_not(mf__vk_uring_is_ready(p.vk));
    enlist(&ring, 1, 1);
    cr_assert(mf__vk_uring_is_ready(p.vk));
    expect_none(&ring);
}

static void finish(void)
{
    ring_close(&ring);
    cr_assert_eq(mf__vk_urings(p.vk), 0);
    pair_close(&p);
}

static uint64_t ask_on(int32_t cpu, uint32_t opcode, const void *in, size_t len)
{
    uint64_t id;

    mf__vk_set_cpu(p.vk, cpu);
    cr_assert_eq(mf_client_send(p.vk, opcode, 1, in, len, &id), 0);
    return id;
}

static uint64_t access_on(int32_t cpu)
{
    struct fuse_access_in in = { .mask = 4 };

    return ask_on(cpu, FUSE_ACCESS, &in, sizeof(in));
}

static int result(uint64_t id)
{
    return mf_client_wait(p.vk, id, NULL, NULL);
}

TestSuite(ring_kernel, .timeout = 30);

/* ---- what is offered ------------------------------------------------------------------------------------- */

Test(ring_kernel, is_offered_where_there_are_queues)
{
    static const struct {
        uint32_t queues, minor;
        bool offered;
    } cases[] = { { 0, 0, false }, { 1, 0, true }, { 128, 45, true }, { 2, 42, true }, { 2, 41, false } };

    for (size_t i = 0; i < MF__ARRAY_SIZE(cases); i++) {
        struct mf_vkernel_opts opts = { .size = sizeof(opts), .queues = cases[i].queues, .minor = cases[i].minor };
        struct fuse_init_in in;

        cr_assert_eq(mf_vkernel_new(&opts, &p.vk), 0);
        end_first(&p.end, p.vk);
        end_expect(&p.end, FUSE_INIT);
        cr_assert_eq(mf__decode_init(&p.end.io.msg, &in), 0);
        cr_expect_eq((in.flags2 & (uint32_t)(FUSE_OVER_IO_URING >> 32)) != 0, cases[i].offered, "case %zu", i);
        cr_expect_eq(mf__vk_uring(p.vk) != NULL, cases[i].queues > 0);
        end_answer(&p.end, -EIO, NULL, 0);
        pair_close(&p);
    }
}

Test(ring_kernel, has_a_limit_of_queues)
{
    struct mf_vkernel_opts opts = { .size = sizeof(opts), .queues = 65536 };

    cr_expect_eq(mf_vkernel_new(&opts, &p.vk), -EINVAL);
}

Test(ring_kernel, setup_checks_its_numbers)
{
    struct mf__uring_params bad = { .flags = MF__URING_SETUP_CQSIZE, .cq_entries = 4 };
    struct mf__uring_params huge = { .flags = MF__URING_SETUP_CQSIZE, .cq_entries = 65537 };
    struct mf__uring_params plain = { .flags = 0 };
    void *at;
    int fd;

    begin();
    cr_expect_eq(mf__vk_calls.setup(p.vk, 0, &plain), -EINVAL);
    cr_expect_eq(mf__vk_calls.setup(p.vk, 32769, &plain), -EINVAL);
    cr_expect_eq(mf__vk_calls.setup(p.vk, 8, &bad), -EINVAL);
    cr_expect_eq(mf__vk_calls.setup(p.vk, 8, &huge), -EINVAL);
    fd = mf__vk_calls.setup(p.vk, 9, &plain);
    cr_expect_geq(fd, 0);
    cr_expect_eq(plain.sq_entries, 16);
    cr_expect_eq(plain.cq_entries, 32);
    cr_expect_eq(mf__vk_calls.enter(p.vk, fd, 1, 0, 0), -EFAULT, "before it is mapped");
    cr_expect_eq(mf__vk_calls.map(p.vk, fd, 1u << 30, 0, &at), -EINVAL);
    cr_expect_eq(mf__vk_calls.map(p.vk, fd, 64, 4096, &at), -EINVAL);
    cr_expect_eq(mf__vk_calls.map(p.vk, 99, 64, 0, &at), -EBADF);
    cr_expect_eq(mf__vk_calls.attach(p.vk, 99, p.end.ch), -EBADF);
    cr_expect_eq(mf__vk_calls.attach(p.vk, ring.fd, p.end.ch), -EBUSY);
    cr_expect_eq(mf__vk_calls.enter(p.vk, 99, 0, 0, 0), -EBADF);
    mf__vk_calls.close(p.vk, fd);
    cr_expect_eq(mf__vk_calls.map(p.vk, fd, 64, 0, &at), -EBADF);
    cr_expect_eq(mf__vk_urings(p.vk), 1);
    finish();
}

/* ---- commands that fail ---------------------------------------------------------------------------------- */

Test(ring_kernel, nothing_before_init_is_answered)
{
    begin();
    enlist(&ring, 0, 0);
    expect_completion(&ring, 0, -EAGAIN);
    command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, 0, 2, 7);
    cr_expect_eq(go(&ring), 1);
    expect_completion(&ring, 7, -EAGAIN);
    agree();
    enlist(&ring, 0, 0);
    expect_none(&ring);
    finish();
}

Test(ring_kernel, register_checks_what_it_is_given)
{
    static const struct {
        uint16_t queue;
        uint32_t len;
        size_t head, payload;
        uint32_t op;
    } bad[] = {
        { QUEUES, 2, 288, PAYLOAD, FUSE_IO_URING_CMD_REGISTER },
        { 0, 1, 288, PAYLOAD, FUSE_IO_URING_CMD_REGISTER },
        { 0, 3, 288, PAYLOAD, FUSE_IO_URING_CMD_REGISTER },
        { 0, 2, 287, PAYLOAD, FUSE_IO_URING_CMD_REGISTER },
        { 0, 2, 288, PAYLOAD - 1, FUSE_IO_URING_CMD_REGISTER },
        { 0, 2, 288, 0, FUSE_IO_URING_CMD_REGISTER },
        { 0, 2, 288, PAYLOAD, 0 },
        { 0, 2, 288, PAYLOAD, 3 },
        { 0, 2, 288, PAYLOAD, MF__FUSE_ADD_BUFPOOL }, /* 7.46 */
    };

    begin();
    agree();
    for (size_t i = 0; i < MF__ARRAY_SIZE(bad); i++) {
        struct iovec iov[2] = { { &hands[0].head, bad[i].head }, { hands[0].payload, bad[i].payload } };
        struct mf__sqe *sqe = command(&ring, bad[i].op, bad[i].queue, 0, 40 + i);

        sqe->addr = (uintptr_t)iov;
        sqe->len = bad[i].len;
        cr_expect_eq(go(&ring), 1);
        expect_completion(&ring, 40 + i, -EINVAL);
    }
    finish();
}

Test(ring_kernel, commands_need_large_submissions)
{
    struct ring small;

    begin();
    agree();
    ring_open(&small, p.vk, 0);
    cr_assert_eq(mf__vk_calls.attach(p.vk, small.fd, p.end.ch), 0);
    enlist(&small, 0, 0);
    expect_completion(&small, 0, -EINVAL);
    ring_close(&small);
    finish();
}

Test(ring_kernel, commands_need_a_file)
{
    struct ring bare;

    begin();
    agree();
    ring_open(&bare, p.vk, MF__URING_SETUP_SQE128);
    enlist(&bare, 0, 0);
    expect_completion(&bare, 0, -EBADF);
    next(&bare, 3)->opcode = 99;
    cr_expect_eq(go(&bare), 1);
    expect_completion(&bare, 3, -EINVAL);
    next(&bare, 4)->opcode = MF__URING_OP_NOP;
    cr_expect_eq(go(&bare), 1);
    expect_completion(&bare, 4, 0);
    ring_close(&bare);
    finish();
}

/* The mount then is the device's. */
Test(ring_kernel, a_failed_register_takes_the_mount_back)
{
    uint64_t id;

    begin();
    agree();
    enlist(&ring, 0, 0);
    mf_vkernel_set_timeout(p.vk, 50);
    cr_expect_eq(mf_client_raw(p.vk, FUSE_STATFS, 1, NULL, 0, NULL, NULL), -ETIMEDOUT, "requests wait for all queues");
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    mf_vkernel_set_timeout(p.vk, 0);
    enlist(&ring, QUEUES, 1);
    expect_completion(&ring, 1, -EINVAL);
    id = access_on(0);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), 0);
    cr_expect_eq(result(id), 0);
    finish();
}

/* And where the other queues get theirs all the same, it is the rings'. */
Test(ring_kernel, a_failed_register_does_not_hinder_readiness)
{
    uint64_t id;

    begin();
    agree();
    enlist(&ring, 0, 0);
    enlist(&ring, QUEUES, 1);
    expect_completion(&ring, 1, -EINVAL);
    enlist(&ring, 1, 1);
    cr_expect(mf__vk_uring_is_ready(p.vk));
    id = access_on(1);
    expect_completion(&ring, 1, 0);
    answer_empty(&ring, 1, 1);
    cr_expect_eq(result(id), 0);
    finish();
}

Test(ring_kernel, a_failed_register_later_has_no_effect)
{
    uint64_t id;

    get_ready();
    enlist(&ring, QUEUES, 2);
    expect_completion(&ring, 2, -EINVAL);
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    finish();
}

Test(ring_kernel, commits_of_what_is_not_there)
{
    uint64_t id;

    get_ready();
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, 0, id + 2, 50);
    cr_expect_eq(go(&ring), 1);
    expect_completion(&ring, 50, -ENOENT);
    command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, 1, id, 51);
    cr_expect_eq(go(&ring), 1);
    expect_completion(&ring, 51, -ENOENT);
    command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, QUEUES, id, 52);
    cr_expect_eq(go(&ring), 1);
    expect_completion(&ring, 52, -EINVAL);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, 0, id, 53);
    cr_expect_eq(go(&ring), 1);
    expect_completion(&ring, 53, -ENOENT);
    cr_expect_eq(mf_vkernel_bad_replies(p.vk), 0);
    finish();
}

/* ---- answers that are wrong ------------------------------------------------------------------------------ */

Test(ring_kernel, bad_answers_fail_at_the_caller)
{
    static const struct {
        uint32_t body;
        int error;
        int64_t unique; /* added to the right one; INT64_MIN = none at all */
        int result;
    } bad[] = {
        { 1, 0, 0, -EINVAL },                                    /* ACCESS has no body */
        { 0, 1, 0, -EINVAL },                                    /* positive */
        { 0, -512, 0, -EINVAL },                                 /* internal to the kernel */
        { 0, 0, INT64_MIN, -EINVAL },                            /* a notification does not come this way */
        { 0, 0, 2, -ENOENT },           { 8, -EACCES, 0, -EIO }, /* an error has no body */
        { PAYLOAD + 1, 0, 0, -EFAULT },
    };

    get_ready();
    for (size_t i = 0; i < MF__ARRAY_SIZE(bad); i++) {
        uint64_t id = access_on(0);
        uint64_t unique = bad[i].unique == INT64_MIN ? 0 : id + (uint64_t)bad[i].unique;

        expect_completion(&ring, 0, 0);
        mf__put_header(hands[0].head.in_out, 0, bad[i].error, unique);
        hands[0].head.ring_ent_in_out.payload_sz = bad[i].body;
        command(&ring, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, 0, id, 0);
        cr_expect_eq(go(&ring), 1);
        cr_expect_eq(result(id), bad[i].result, "case %zu", i);
        cr_expect_eq(mf_vkernel_bad_replies(p.vk), i + 1);
    }
    /* No completion told of it, and the entry serves on. */
    expect_none(&ring);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 1);
    finish();
}

Test(ring_kernel, errors_and_bodies_reach_the_caller)
{
    struct fuse_read_in in = { .size = 100 };
    uint8_t buf[100];
    uint64_t len = sizeof(buf);
    uint64_t id;

    get_ready();
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    answer(&ring, 0, 0, -ENXIO, "", 0);
    cr_expect_eq(result(id), -ENXIO);
    id = ask_on(0, FUSE_READ, &in, sizeof(in));
    expect_completion(&ring, 0, 0);
    answer(&ring, 0, 0, 0, "a short read", 12);
    cr_expect_eq(mf_client_wait(p.vk, id, buf, &len), 0);
    cr_expect_eq(len, 12);
    cr_expect_arr_eq(buf, "a short read", 12);
    finish();
}

/* ---- layout ---------------------------------------------------------------------------------------------- */

Test(ring_kernel, a_request_lies_in_three_places)
{
    struct fuse_in_header hdr;
    struct fuse_write_in in = { .fh = 77, .size = 5, .offset = 12 };
    struct iovec parts[2] = { { &in, sizeof(in) }, { (void *)(uintptr_t) "bytes", 5 } };
    struct hand *h = &hands[0];
    uint8_t all[sizeof(in) + 5];
    uint64_t id;

    get_ready();
    mf__vk_gather(all, 0, sizeof(all), parts, 2);
    id = ask_on(0, FUSE_WRITE, all, sizeof(all));
    expect_completion(&ring, 0, 0);
    memcpy(&hdr, h->head.in_out, sizeof(hdr));
    cr_expect_eq(hdr.len, sizeof(hdr) + sizeof(all));
    cr_expect_eq(hdr.opcode, FUSE_WRITE);
    cr_expect_eq(hdr.unique, id);
    cr_expect_eq(hdr.uid, 5);
    cr_expect_arr_eq(h->head.op_in, &in, sizeof(in));
    cr_expect_arr_eq(h->payload, "bytes", 5);
    cr_expect_eq(h->head.ring_ent_in_out.payload_sz, 5);
    cr_expect_eq(h->head.ring_ent_in_out.commit_id, id);
    cr_expect_eq(h->head.ring_ent_in_out.flags, 0);
    answer(&ring, 0, 0, 0, "\5\0\0\0\0\0\0\0", 8);
    cr_expect_eq(result(id), 0);
    /* Names only: no structure. */
    id = ask_on(0, FUSE_UNLINK, "name", 5);
    expect_completion(&ring, 0, 0);
    cr_expect_arr_eq(h->payload, "name", 5);
    cr_expect_eq(h->head.ring_ent_in_out.payload_sz, 5);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    /* Neither. */
    id = ask_on(0, FUSE_STATFS, NULL, 0);
    expect_completion(&ring, 0, 0);
    cr_expect_eq(h->head.ring_ent_in_out.payload_sz, 0);
    answer(&ring, 0, 0, -EIO, "", 0);
    cr_expect_eq(result(id), -EIO);
    finish();
}

Test(ring_kernel, what_is_larger_than_a_payload_fails)
{
    uint8_t *big = calloc(1, sizeof(struct fuse_write_in) + PAYLOAD + 1);
    uint64_t id;

    get_ready();
    id = ask_on(0, FUSE_WRITE, big, sizeof(struct fuse_write_in) + PAYLOAD + 1);
    cr_expect_eq(result(id), -EIO);
    expect_none(&ring);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 1);
    id = ask_on(0, FUSE_WRITE, big, sizeof(struct fuse_write_in) + PAYLOAD);
    expect_completion(&ring, 0, 0);
    answer(&ring, 0, 0, -EFBIG, "", 0);
    cr_expect_eq(result(id), -EFBIG);
    free(big);
    finish();
}

/* ---- where requests go ----------------------------------------------------------------------------------- */

Test(ring_kernel, queues_do_not_steal)
{
    uint64_t first, second, other;

    get_ready();
    first = access_on(0);
    second = access_on(0);
    expect_completion(&ring, 0, 0);
    expect_none(&ring); /* though queue 1 has an entry */
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).pending, 1);
    other = access_on(1);
    expect_completion(&ring, 1, 0);
    answer_empty(&ring, 1, 1);
    cr_expect_eq(result(other), 0);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(first), 0);
    expect_completion(&ring, 0, 0); /* the commit brought the next one in */
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(second), 0);
    finish();
}

Test(ring_kernel, clients_run_on_each_cpu_in_turn)
{
    uint64_t ids[4];

    get_ready();
    for (int i = 0; i < 4; i++) {
        uint32_t hand = (uint32_t)i % 2;

        ids[i] = access_on(-1);
        expect_completion(&ring, hand, 0);
        answer_empty(&ring, (uint16_t)hand, hand);
        cr_expect_eq(result(ids[i]), 0);
    }
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).delivered, 2);
    cr_expect_eq(mf__vk_queue_look(p.vk, 1).delivered, 2);
    finish();
}

Test(ring_kernel, idle_entries_are_used_last_in_first_out)
{
    uint64_t a, b;

    get_ready();
    enlist(&ring, 0, 2);
    enlist(&ring, 0, 3);
    a = access_on(0);
    expect_completion(&ring, 3, 0);
    b = access_on(0);
    expect_completion(&ring, 2, 0);
    answer_empty(&ring, 0, 3);
    cr_expect_eq(result(a), 0);
    a = access_on(0);
    expect_completion(&ring, 3, 0);
    answer_empty(&ring, 0, 2);
    answer_empty(&ring, 0, 3);
    cr_expect_eq(result(a), 0);
    cr_expect_eq(result(b), 0);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).most_busy, 2);
    finish();
}

/* It takes what comes after it; what waited before waits on, for a commit. */
Test(ring_kernel, a_fresh_entry_does_not_look_at_what_waits)
{
    uint64_t a, b, c;

    get_ready();
    a = access_on(0);
    b = access_on(0);
    expect_completion(&ring, 0, 0);
    enlist(&ring, 0, 2);
    expect_none(&ring);
    c = access_on(0);
    expect_completion(&ring, 2, 0);
    cr_expect_eq(hands[2].head.ring_ent_in_out.commit_id, c);
    answer_empty(&ring, 0, 2);
    expect_completion(&ring, 2, 0);
    cr_expect_eq(hands[2].head.ring_ent_in_out.commit_id, b);
    answer_empty(&ring, 0, 2);
    answer_empty(&ring, 0, 0);
    cr_expect(result(a) == 0 && result(b) == 0 && result(c) == 0);
    finish();
}

/* An entry's next request comes where its last command came from. */
Test(ring_kernel, an_entry_moves_to_the_ring_that_commits)
{
    struct ring other;
    uint64_t id;

    get_ready();
    ring_open(&other, p.vk, MF__URING_SETUP_SQE128);
    cr_assert_eq(mf__vk_calls.attach(p.vk, other.fd, p.end.ch), 0);
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    answer_empty(&other, 0, 0);
    cr_expect_eq(result(id), 0);
    id = access_on(0);
    expect_none(&ring);
    expect_completion(&other, 0, 0);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    ring_close(&other);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 1);
    finish();
}

Test(ring_kernel, some_things_stay_on_the_device)
{
    uint64_t id;

    get_ready();
    cr_expect_eq(mf_client_forget(p.vk, 9, 1), 0);
    end_expect(&p.end, FUSE_FORGET);
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    cr_expect_eq(mf_client_interrupt(p.vk, id), 0);
    end_expect(&p.end, FUSE_INTERRUPT);
    /* The device does not know the target: it cannot be asked for again. */
    cr_expect_eq(end_reply(&p.end, id | FUSE_INT_REQ_BIT, -EAGAIN, NULL, 0), -ENOENT);
    answer(&ring, 0, 0, -EINTR, "", 0);
    cr_expect_eq(result(id), -EINTR);
    /* A signal that comes before the request is delivered is not told later. */
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    {
        uint64_t waits = access_on(0);

        cr_expect_eq(mf_client_interrupt(p.vk, waits), 0);
        answer_empty(&ring, 0, 0);
        cr_expect_eq(result(id), 0);
        expect_completion(&ring, 0, 0);
        cr_expect_eq(mf_vkernel_pending(p.vk), 1);
        answer_empty(&ring, 0, 0);
        cr_expect_eq(result(waits), 0);
    }
    finish();
}

Test(ring_kernel, resend_skips_what_is_in_entries)
{
    uint8_t msg[64];
    int64_t len = mf__put_notify_plain(msg, sizeof(msg), FUSE_NOTIFY_RESEND);
    uint64_t id;

    get_ready();
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    cr_expect_eq(p.end.ch->ops->write_raw(p.end.ch, msg, (size_t)len), 0);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).busy, 1);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    finish();
}

Test(ring_kernel, a_reply_to_retrieve_holds_an_entry)
{
    struct fuse_in_header hdr;
    uint8_t msg[64];
    int64_t len = mf__put_notify_retrieve(msg, sizeof(msg), 4711, 9, 5, 100);

    get_ready();
    mf__vk_set_cpu(p.vk, 0);
    cr_expect_eq(p.end.ch->ops->write_raw(p.end.ch, msg, (size_t)len), 0);
    expect_completion(&ring, 0, 0);
    memcpy(&hdr, hands[0].head.in_out, sizeof(hdr));
    cr_expect_eq(hdr.opcode, FUSE_NOTIFY_REPLY);
    cr_expect_eq(hands[0].head.ring_ent_in_out.commit_id, 4711);
    cr_expect_eq(hands[0].head.ring_ent_in_out.payload_sz, sizeof(struct fuse_notify_retrieve_in));
    cr_expect_eq(mf_vkernel_pending(p.vk), 1);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(mf_vkernel_pending(p.vk), 0);
    finish();
}

/* ---- the queues of a ring -------------------------------------------------------------------------------- */

Test(ring_kernel, completions_that_do_not_fit_come_later)
{
    begin();
    for (uint64_t i = 0; i < 100; i++) {
        next(&ring, i)->opcode = MF__URING_OP_NOP;
        cr_assert_eq(go(&ring), 1);
    }
    for (uint64_t i = 0; i < 100; i++) {
        struct mf__cqe cqe;

        if (!completion(&ring, &cqe)) {
            cr_assert_eq(mf__vk_calls.enter(p.vk, ring.fd, 0, 1, MF__URING_ENTER_GETEVENTS), 0);
            cr_assert(completion(&ring, &cqe));
        }
        cr_assert_eq(cqe.user_data, i);
    }
    expect_none(&ring);
    finish();
}

Test(ring_kernel, a_bad_index_is_dropped)
{
    begin();
    next(&ring, 1)->opcode = MF__URING_OP_NOP;
    *(uint32_t *)(void *)(ring.maps + ring.p.sq.c) = 77;
    cr_expect_eq(go(&ring), 0);
    expect_none(&ring);
    finish();
}

static void *nop_later(void *arg)
{
    (void)arg;
    usleep(20000);
    next(&ring, 9)->opcode = MF__URING_OP_NOP;
    go(&ring);
    return NULL;
}

Test(ring_kernel, enter_waits_for_a_completion)
{
    pthread_t thread;

    begin();
    cr_assert_eq(pthread_create(&thread, NULL, nop_later, NULL), 0);
    cr_expect_eq(mf__vk_calls.enter(p.vk, ring.fd, 0, 1, MF__URING_ENTER_GETEVENTS), 0);
    expect_completion(&ring, 9, 0);
    pthread_join(thread, NULL);
    finish();
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

static void *enlist_and_exit(void *arg)
{
    (void)arg;
    enlist(&ring, 0, 2);
    return NULL;
}

/* The entry of a thread that is gone takes its next request down. */
Test(ring_kernel, threads_take_their_entries_along)
{
    pthread_t thread;
    uint64_t id;

    get_ready();
    cr_assert_eq(pthread_create(&thread, NULL, enlist_and_exit, NULL), 0);
    pthread_join(thread, NULL);
    id = access_on(0);
    cr_expect_eq(result(id), -ECANCELED);
    expect_completion(&ring, 2, -ECANCELED);
    id = access_on(0); /* the next one is another entry's */
    expect_completion(&ring, 0, 0);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    finish();
}

Test(ring_kernel, unmounting_brings_entries_back)
{
    uint64_t in_hand, waits;

    get_ready();
    in_hand = access_on(0);
    waits = access_on(0);
    expect_completion(&ring, 0, 0);
    mf_vkernel_unmount(p.vk);
    cr_expect_eq(result(in_hand), -ECONNABORTED);
    cr_expect_eq(result(waits), -ECONNABORTED);
    expect_completion(&ring, 1, -ENOTCONN); /* the idle one */
    expect_none(&ring);
    answer_empty(&ring, 0, 0); /* the other learns of it now */
    expect_completion(&ring, 0, -ENOTCONN);
    enlist(&ring, 0, 2);
    expect_completion(&ring, 2, -ENOTCONN);
    cr_expect_eq(end_read(&p.end), -ENODEV);
    cr_expect(mf__vk_calls.over(p.vk, p.end.ch));
    finish();
}

Test(ring_kernel, an_abort_does_so_too)
{
    begin();
    end_init(&p.end, FUSE_OVER_IO_URING | FUSE_ABORT_ERROR);
    enlist(&ring, 0, 0);
    cr_expect_not(mf__vk_calls.over(p.vk, p.end.ch));
    mf_vkernel_abort(p.vk);
    expect_completion(&ring, 0, -ENOTCONN);
    enlist(&ring, 0, 0);
    expect_completion(&ring, 0, -ECONNABORTED);
    cr_expect_eq(end_read(&p.end), -ECONNABORTED);
    finish();
}

/* A ring is there until its descriptor and its maps are gone, and swallows what comes meanwhile. */
Test(ring_kernel, a_ring_lives_until_all_of_it_is_gone)
{
    uint64_t id;

    get_ready();
    mf__vk_calls.close(p.vk, ring.fd);
    cr_expect_eq(mf__vk_urings(p.vk), 1);
    cr_expect_eq(mf__vk_queue_look(p.vk, 0).idle, 1);
    id = access_on(0);
    expect_completion(&ring, 0, 0);
    mf__vk_calls.unmap(p.vk, ring.sqes, ring.sqes_size);
    cr_expect_eq(mf__vk_urings(p.vk), 1);
    mf__vk_calls.unmap(p.vk, ring.maps, ring.maps_size);
    cr_expect_eq(mf__vk_urings(p.vk), 0);
    cr_expect_eq(mf__vk_queue_look(p.vk, 1).idle, 0);
    /* What is in hand outlives it: another ring can commit it. */
    ring_open(&ring, p.vk, MF__URING_SETUP_SQE128);
    cr_assert_eq(mf__vk_calls.attach(p.vk, ring.fd, p.end.ch), 0);
    answer_empty(&ring, 0, 0);
    cr_expect_eq(result(id), 0);
    finish();
}

/* The device may be closed: the armed ring keeps the connection. */
Test(ring_kernel, a_ring_keeps_the_connection)
{
    uint64_t id;

    get_ready();
    end_close(&p.end);
    id = access_on(1);
    expect_completion(&ring, 1, 0);
    answer_empty(&ring, 1, 1);
    cr_expect_eq(result(id), 0);
    id = access_on(0);
    ring_close(&ring);
    cr_expect_eq(result(id), -ECONNABORTED);
    mf_vkernel_free(p.vk);
}

Test(ring_kernel, where_it_was_not_agreed_upon_the_device_serves)
{
    uint64_t id;

    begin();
    end_init(&p.end, 0);
    id = access_on(0);
    end_expect(&p.end, FUSE_ACCESS);
    cr_expect_eq(end_answer(&p.end, 0, NULL, 0), 0);
    cr_expect_eq(result(id), 0);
    finish();
}
