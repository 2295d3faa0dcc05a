/* SPDX-License-Identifier: MIT */
/* Callers that give up: an INTERRUPT may be read by any reader, before and after its target. */
#include <string.h>

#include "fs_rig.h"
#include "vkernel/vkernel.h"

static struct fs_rig rig;
static struct mf_req *kept;

static int32_t keep(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    cr_expect_eq(mf_req_interrupted(c->req), 0, "nobody has interrupted this one");
    kept = c->req;
    return MF_ANSWER_LATER;
}

static void setup(void)
{
    fs_init(&rig);
    rig.script = keep;
}

TestSuite(session_interrupt, .init = setup, .timeout = 30);

static void answer(uint64_t id, int error)
{
    cr_expect_eq(mf_reply_err(kept, error), 0);
    cr_expect_eq(fs_wait(&rig, id), -error);
}

FS_TEST(session_interrupt, of_a_request_in_hand)
{
    uint64_t id;

    fs_step_init(&rig, 2);
    for (uint32_t reader = 0; reader < 2; reader++) {
        unsigned before = rig.interrupts;

        id = fs_send_getattr(&rig, 5);
        fs_step(&rig, 0);
        cr_expect_eq(mf_req_interrupted(kept), 0);
        cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
        fs_step(&rig, reader); /* the target's own reader, then another one */
        cr_expect_eq(mf_req_interrupted(kept), 1);
        cr_expect_eq(rig.interrupts, before + 1);
        cr_expect_eq(rig.interrupted_id, id);
        cr_expect_eq(fs_stats(&rig, reader).interrupts, 1);
        answer(id, EINTR);
        cr_expect_eq(mf_req_interrupted(kept), -EALREADY);
    }
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
    cr_expect_eq(fs_stats(&rig, 1).in_flight, 0);
}

FS_TEST(session_interrupt, before_the_request_is_read)
{
    uint64_t id;

    fs_step_init(&rig, 1);
    id = fs_send_getattr(&rig, 5);
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    fs_step(&rig, 0);
    cr_expect_eq(rig.interrupts, 0);
    fs_step(&rig, 0);
    cr_expect_eq(rig.interrupts, 1);
    cr_expect_eq(mf_req_interrupted(kept), 1);
    answer(id, EINTR);
}

FS_TEST(session_interrupt, of_one_among_many)
{
    struct mf_req *reqs[9];
    uint64_t ids[9];

    fs_step_init(&rig, 3);
    for (uint32_t i = 0; i < 9; i++) {
        ids[i] = fs_send_getattr(&rig, 5);
        fs_step(&rig, i % 3);
        reqs[i] = kept;
    }
    cr_expect_eq(mf_client_interrupt(rig.vk, ids[4]), 0);
    fs_step(&rig, 2);
    for (uint32_t i = 0; i < 9; i++) {
        cr_expect_eq(mf_req_interrupted(reqs[i]), i == 4, "request %u", i);
        kept = reqs[i];
        answer(ids[i], EDOM);
    }
}

FS_TEST(session_interrupt, that_comes_after_the_answer)
{
    struct mf__slot *late;
    uint64_t id;

    fs_step_init(&rig, 2);
    id = fs_send_getattr(&rig, 5);
    fs_step(&rig, 0);
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    late = fs_receive(&rig, 1); /* read, and then its reader is slow */
    answer(id, EDOM);
    cr_expect_eq(mf_client_interrupt(rig.vk, id), -ENOENT);

    id = fs_send_getattr(&rig, 6);
    fs_step(&rig, 0);
    fs_dispatch(&rig, 1, late);
    cr_expect_eq(rig.interrupts, 0);
    cr_expect_eq(mf_req_interrupted(kept), 0, "another request was hit");
    cr_expect_eq(mf_vkernel_pending(rig.vk), 1, "the INTERRUPT was asked for again");
    answer(id, EDOM);
}

FS_TEST(session_interrupt, a_mark_does_not_outlive_its_request)
{
    struct mf_req *first;
    uint64_t id;

    fs_step_init(&rig, 1);
    id = fs_send_getattr(&rig, 5);
    fs_step(&rig, 0);
    first = kept;
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    fs_step(&rig, 0);
    answer(id, EINTR);
    for (int i = 0; i < 8; i++) {
        id = fs_send_getattr(&rig, 6);
        fs_step(&rig, 0);
        cr_expect_eq(mf_req_interrupted(kept), 0, "round %d", i);
        cr_expect_eq(mf_req_interrupted(first), -EALREADY);
        answer(id, EDOM);
    }
}

/* The reader of the target has read it, but has not come to note its id. */
FS_TEST(session_interrupt, is_asked_for_again_until_its_target_is_known)
{
    struct mf__slot *target;
    uint64_t id;

    fs_step_init(&rig, 2);
    id = fs_send_getattr(&rig, 5);
    target = fs_receive(&rig, 0);
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    for (int i = 0; i < 5; i++) {
        cr_expect_eq(mf_vkernel_pending(rig.vk), 2, "round %d: the INTERRUPT is lost", i);
        fs_step(&rig, 1);
        cr_expect_eq(rig.interrupts, 0);
    }
    fs_dispatch(&rig, 0, target);
    cr_expect_eq(mf_req_interrupted(kept), 0);
    fs_step(&rig, 1);
    cr_expect_eq(rig.interrupts, 1);
    cr_expect_eq(mf_req_interrupted(kept), 1);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 1, "nothing but the target");
    cr_expect_eq(fs_stats(&rig, 1).interrupts, 6);
    answer(id, EINTR);
}

/* Another process has read the target on a descriptor of its own: here nobody can do anything. */
FS_TEST(session_interrupt, of_a_request_in_somebody_elses_hands_is_dropped)
{
    struct mf__vk_chan *theirs;
    uint8_t buf[1u << 21];
    struct fuse_out_header done = { .len = sizeof(done), .error = -EDOM };
    struct iovec iov = { .iov_base = &done, .iov_len = sizeof(done) };
    size_t len;
    uint64_t id;

    fs_step_init(&rig, 2);
    cr_assert_eq(mf__vk_chan_clone(rig.s->channels[0]->impl, &theirs), 0);
    id = fs_send_getattr(&rig, 5);
    cr_assert_eq(mf__vk_chan_receive(theirs, buf, sizeof(buf), &len), 0);
    cr_expect_eq(mf_client_interrupt(rig.vk, id), 0);
    fs_step(&rig, 1);
    cr_expect_eq(rig.interrupts, 0);
    cr_expect_eq(mf_vkernel_pending(rig.vk), 1, "nothing but the target");
    done.unique = id;
    cr_expect_eq(mf__vk_chan_send(theirs, &iov, 1), 0);
    cr_expect_eq(fs_wait(&rig, id), -EDOM);
    mf__vk_chan_close(theirs);
}

FS_TEST(session_interrupt, messages_that_make_no_sense)
{
    struct fuse_interrupt_in in = { .unique = 0x1234 };

    fs_step_init(&rig, 1);
    fs_send(&rig, FUSE_INTERRUPT, 0, &in, sizeof(in));
    fs_step(&rig, 0);
    in.unique = 0;
    fs_send(&rig, FUSE_INTERRUPT, 0, &in, sizeof(in));
    fs_step(&rig, 0);
    fs_send(&rig, FUSE_INTERRUPT, 0, &in, 3);
    fs_step(&rig, 0);
    cr_expect_eq(rig.interrupts, 0);
    cr_expect_eq(fs_stats(&rig, 0).interrupts, 3);
    cr_expect_eq(fs_stats(&rig, 0).in_flight, 0);
}

/* ---- with threads --------------------------------------------------------------------------------------- */

static int32_t wait_for_interrupt(struct mf_call *c, struct fs_rig *r)
{
    if (c->node != FS_GATE)
        return FS_DEFAULT;
    atomic_fetch_add((_Atomic unsigned *)r->data, 1);
    for (int i = 0; i < 20000; i++) {
        if (mf_req_interrupted(c->req) == 1)
            return -EINTR;
        usleep(500);
    }
    return -ETIME;
}

FS_TEST(session_interrupt, reaches_a_handler_that_waits)
{
    _Atomic unsigned waiting = 0;
    uint64_t ids[3];

    rig.opts.readers = 4;
    rig.script = wait_for_interrupt;
    rig.data = &waiting;
    fs_run(&rig);
    for (int i = 0; i < 3; i++)
        ids[i] = fs_send_getattr(&rig, FS_GATE);
    FS_UNTIL(waiting == 3);
    for (int i = 2; i >= 0; i--) {
        cr_expect_eq(mf_client_interrupt(rig.vk, ids[i]), 0);
        cr_expect_eq(fs_wait(&rig, ids[i]), -EINTR);
    }
    cr_expect_eq(rig.interrupts, 3);
}

/* Interrupts at every moment of a request's life: whatever happens, each is answered and none is left. */
FS_TEST(session_interrupt, at_every_moment)
{
    rig.opts.readers = 3;
    rig.script = NULL;
    fs_run(&rig);
    for (int i = 0; i < 3000; i++) {
        uint64_t id = fs_send_getattr(&rig, FS_FILE0);
        int rc;

        for (volatile int spin = 0; spin < i % 50 * 20; spin = spin + 1)
            continue;
        rc = mf_client_interrupt(rig.vk, id);
        cr_expect(rc == 0 || rc == -ENOENT, "%d", rc);
        cr_expect_eq(fs_wait(&rig, id), 0);
    }
    FS_UNTIL(mf_vkernel_pending(rig.vk) == 0);
}
