/* SPDX-License-Identifier: MIT */
/* dispatch.c - from a received message to the handler and back: decoding, access, answers given in C. */
#include <string.h>

#include "session/session.h"
#include "transport/ring.h"

#define TURN_SPINS 1000u /* some ten microseconds */
#define TURN_PASSES_MAX 64u

/* Nobody answers for these within the filesystem's code. */
static bool may_pass(const struct mf_session *s, const struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;

    if (s->terms.acl == MF_ACL_ALL || !(slot->row->props & MF__OPC_ACL) || hdr->uid == s->terms.owner_uid)
        return true;
    if (s->terms.acl == MF_ACL_ROOT_AND_OWNER && hdr->uid == 0)
        return true;
    /* The kernel's own flush of times, in nobody's name. */
    return hdr->opcode == FUSE_SETATTR && hdr->pid == 0;
}

MF__COLD static void forgotten_answer(struct mf__slot *slot)
{
    mf__count(&slot->reader->stats.forgotten, 1);
    mf__log_limited(slot->reader->session, MF_LOG_ERROR, "%s of node %llu: the handler returned without an answer",
                    slot->row->name, (unsigned long long)slot->call.node);
    mf__send_error(slot, -EIO);
}

/* The handler has returned: the slot is the reader's again, now or when somebody else's answer is out. */
static void settle(struct mf__slot *slot, bool kept)
{
    if (slot->row->reply == MF__REPLY_NEVER)
        atomic_store_explicit(&slot->unique, 0, memory_order_relaxed);
    else if (!slot->inside && !kept && mf__token_claim(mf__slot_token(slot)) == 0)
        forgotten_answer(slot);
    else if (!slot->inside && !(atomic_fetch_or(&slot->left, MF__LEFT_HANDLER) & MF__LEFT_ANSWERER))
        return; /* whoever answers gives it back */
    mf__slot_recycle(slot);
}

static void answer_error(struct mf__slot *slot, int error)
{
    if (slot->row->reply != MF__REPLY_NEVER && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, error);
    settle(slot, false);
}

/*
 * Handlers that exclude each other by a lock of their language: a reader that finds the lock taken would be put to
 * sleep and woken, which costs more than the few microseconds for which most handlers keep it. So it waits for its
 * turn here, awake, and goes on without one when that takes too long: then the handler waits for something else. Where
 * handlers often do, so do these spins come to nothing, and are left out for a while.
 */
static void take_turn(struct mf_session *s, uint32_t me)
{
    uint32_t pass = atomic_load_explicit(&s->turn_pass, memory_order_relaxed), none = 0;

    for (uint32_t i = 0; pass == 0 && i < TURN_SPINS; i++) {
        if (atomic_load_explicit(&s->turn, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_weak_explicit(&s->turn, &none, me, memory_order_acquire, memory_order_relaxed)) {
            if (i)
                atomic_store_explicit(&s->turn_passes, 0, memory_order_relaxed);
            return;
        }
        none = 0;
        MF__RELAX();
    }
    if (pass == 0) { /* in vain: so many requests do not try it, more each time in a row */
        pass = atomic_load_explicit(&s->turn_passes, memory_order_relaxed) * 2 + 1;
        pass = pass < TURN_PASSES_MAX ? pass : TURN_PASSES_MAX;
        atomic_store_explicit(&s->turn_passes, pass, memory_order_relaxed);
    }
    atomic_store_explicit(&s->turn_pass, pass - 1, memory_order_relaxed);
    atomic_store_explicit(&s->turn, me, memory_order_relaxed); /* who waits has no turn: the next need not spin */
}

/* Where they wait often whoever has the turn is asleep with it. */
static bool turns_are_short(const struct mf_session *s, const struct mf__slot *slot)
{
    return !slot->io.own && !mf__door_is_open(&s->door);
}

static void end_turn(struct mf_session *s, uint32_t me)
{
    atomic_compare_exchange_strong_explicit(&s->turn, &me, 0, memory_order_release, memory_order_relaxed);
}

/* Will the reader enter the language again before it lets anything else run? */
static bool goes_on(const struct mf__reader *r)
{
    struct mf__channel *ch = atomic_load_explicit(&r->rx, memory_order_relaxed);

    return r->session->hooks.leave && ch != r->ch && mf__ring_has_more(ch);
}

static int32_t run_handler(struct mf_session *s, struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;
    uint32_t me = r->index + 1;
    bool alone = atomic_load_explicit(&s->serialize, memory_order_relaxed);
    int32_t rc;

    if (alone)
        pthread_mutex_lock(&s->serial);
    if (alone && atomic_load(&s->abandoned)) { /* it is over: the handler before this one never came back in time */
        pthread_mutex_unlock(&s->serial);
        return -ENOTCONN;
    }
    if (s->takes_turns && !r->entered && turns_are_short(s, slot))
        take_turn(s, me);
    rc = s->upcall(&slot->call, s->user);
    r->entered = s->takes_turns || s->hooks.leave;
    if (r->entered && (alone || !goes_on(r)))
        mf__leave_language(r);
    if (alone)
        pthread_mutex_unlock(&s->serial);
    return rc;
}

void mf__leave_language(struct mf__reader *r)
{
    struct mf_session *s = r->session;

    if (!r->entered)
        return;
    r->entered = false;
    if (s->hooks.leave)
        s->hooks.leave(s->hooks_user);
    if (s->takes_turns)
        end_turn(s, r->index + 1);
}

static void enter_handler(struct mf_session *s, struct mf__slot *slot)
{
    struct mf_call *call = &slot->call;
    int32_t rc;

    call->req = mf__slot_token(slot);
    call->buf = slot->io.body;
    call->buf_size = slot->io.body_size;
    call->again = (slot->io.msg.hdr.unique & FUSE_UNIQUE_RESEND) != 0;
    if (s->upcall != mf__typed_upcall) /* these answer by calls */
        mf__zero(&call->answer, sizeof(call->answer));
    atomic_store_explicit(&slot->journal.started, call->unique, memory_order_relaxed);
    slot->returned = false;
    rc = run_handler(s, slot);
    slot->returned = true;
    if (slot->received_ns)
        mf__count_handler(mf__self, slot);
    if (slot->row->reply == MF__REPLY_NEVER || rc == MF_ANSWERED || rc == MF_ANSWER_LATER) {
        settle(slot, slot->kept || rc == MF_ANSWER_LATER);
        return;
    }
    if (mf__token_claim(call->req) == 0) {
        if (rc == 0)
            mf__send_answer(slot);
        else if (rc < 0 && rc > -512)
            mf__send_error(slot, rc);
        else
            mf__refuse(slot, "the handler returned a number that is no errno");
    }
    settle(slot, slot->kept);
}

MF__COLD static void session_message(struct mf__reader *r, struct mf__slot *slot)
{
    switch (slot->io.msg.hdr.opcode) {
    case FUSE_INTERRUPT: mf__interrupt(r, slot); break;
    case FUSE_DESTROY: answer_error(slot, 0); return;
    case FUSE_INIT:
        answer_error(slot, -EIO); /* a second handshake: never */
        return;
    default: break;
    }
    settle(slot, false);
}

MF__COLD static void malformed(struct mf__reader *r, struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;

    mf__count(&r->stats.malformed, 1);
    mf__log_limited(r->session, MF_LOG_ERROR, "reader %u: malformed message: opcode %u, length %u, id %llu", r->index,
                    hdr->opcode, hdr->len, (unsigned long long)hdr->unique);
    if (hdr->unique == 0) { /* too short to have an id: nobody can be answered */
        mf__count(&r->stats.no_reply, 1);
        mf__slot_recycle(slot);
        return;
    }
    answer_error(slot, -EIO);
}

MF__COLD static void trace(struct mf__reader *r, const struct mf__slot *slot)
{
    const struct mf_call *call = &slot->call;

    mf__logf(&r->session->log, MF_LOG_DEBUG, "reader %u fd %d: %s id %llu node %llu%s%s pid %u", r->index, r->ch->fd,
             slot->row->name ? slot->row->name : "?", (unsigned long long)call->unique, (unsigned long long)call->node,
             call->name ? " " : "", call->name ? call->name : "", call->pid);
}

/*
 * The answer to an operation that the filesystem lacks. The kernel takes ENOSYS for the whole connection: a
 * session that joined it must not say so of what the first one implements.
 */
MF__COLD static int refusal(const struct mf_session *s, const struct mf__opcode *row)
{
    if (row->props & MF__OPC_ALWAYS)
        return 0;
    return row->slot && (s->terms.implemented & (1ull << row->slot)) ? -EIO : -ENOSYS;
}

static void decoded(struct mf__reader *r, struct mf__slot *slot)
{
    struct mf_session *s = r->session;

    if (s->opts.flags & MF_OPT_DEBUG)
        trace(r, slot);
    if (!slot->row->slot || !(s->implemented & (1ull << slot->row->slot))) {
        answer_error(slot, refusal(s, slot->row));
        return;
    }
    if (!may_pass(s, slot)) {
        answer_error(slot, -EACCES);
        return;
    }
    enter_handler(s, slot);
}

void mf__dispatch(struct mf__reader *r, struct mf__slot *slot)
{
    struct mf__msg *msg = &slot->io.msg;
    int rc;

    slot->row = mf__opcode(msg->hdr.opcode);
    mf__slot_open(slot);
    atomic_store_explicit(&slot->unique, msg->hdr.unique, memory_order_release);
    r->current = slot;
    mf__count_request(r, slot);
    if (!slot->row->known) {
        /* Newer than this library, or garbage: a message that has an id is owed an answer either way. */
        if (msg->hdr.opcode == 0)
            malformed(r, slot);
        else
            answer_error(slot, -ENOSYS);
    } else if (slot->row->props & MF__OPC_SESSION) {
        session_message(r, slot);
    } else {
        rc = mf__decode(msg, r->session->terms.flags, &slot->call, &slot->one);
        if (rc < 0)
            malformed(r, slot);
        else
            decoded(r, slot);
    }
    r->current = NULL;
}
