/* SPDX-License-Identifier: MIT */
/*
 * interrupt.c - a caller gave up.
 *
 * The INTERRUPT may be read by any reader, also before the reader of its target has noted the target's id.
 * Nothing is kept for that case: the kernel is asked to send it again (EAGAIN, on the descriptor that holds
 * the target; elsewhere that is ENOENT and harmless) until the target is found or is no longer pending. So
 * the hot path pays one store of the id, and shares nothing.
 */
#include "session/session.h"

struct target {
    uint64_t unique;
};

static int mark(struct mf__slot *slot, void *arg)
{
    const struct target *t = arg;
    struct mf_session *s = slot->reader->session;

    if (atomic_load_explicit(&slot->unique, memory_order_acquire) != t->unique)
        return 0;
    /* The id itself: should the slot serve another request by now, this says nothing about that one. */
    atomic_store(&slot->interrupted, t->unique);
    if (s->hooks.interrupted)
        s->hooks.interrupted(s, t->unique, s->hooks_user);
    return 1;
}

static int mark_in_session(struct mf_session *s, void *arg)
{
    return mf__slots_each(s, mark, arg);
}

static int ask_again(struct mf_session *s, void *arg)
{
    const struct target *t = arg;
    struct fuse_out_header again;
    int rc = 0;

    mf__put_header(&again, 0, -EAGAIN, t->unique | 1);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->channel_count && rc == 0; i++)
        rc = s->channels[i]->ops->write_raw(s->channels[i], &again, sizeof(again)) == 0;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void mf__interrupt(struct mf__reader *r, struct mf__slot *slot)
{
    struct target t;

    mf__count(&r->stats.interrupts, 1);
    if (mf__decode_interrupt(&slot->io.msg, &t.unique) < 0 || t.unique == 0) /* 0 is what a free slot has */
        return;
    if (!mf__registry_each(r->session, mark_in_session, &t))
        mf__registry_each(r->session, ask_again, &t);
}
