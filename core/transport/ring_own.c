/* SPDX-License-Identifier: MIT */
/*
 * ring_own.c - rings of readers' own, for where handlers wait.
 *
 * On the ring that readers share, whoever takes a request whose handler may wait calls another one first: a second wake-up
 * for each request, and one that comes too late where handlers wait once in a hundred times. But an entry belongs to the
 * ring on which it was committed last, and the kernel gives the next request to the entry that came back last. So where
 * handlers wait each reader commits its answers on a ring of its own, and waits there: what comes to it wakes it and nobody
 * else, and while it is in a handler its entry is not there to be given anything. As many readers come to have an entry as
 * requests are in hand at once; the entries that were not needed stay on the shared ring, where one reader at least waits
 * for what is too much for the others, and takes that to a ring of its own in turn.
 *
 * What is given up is to answer several requests in one system call. So where handlers return at once answers go out on the
 * shared ring again, and take their entries along. An entry that gets no request stays where it is: its reader may not leave
 * before somebody else waits in its place.
 */
#include <stdlib.h>
#include <unistd.h>

#include "transport/ring_private.h"

#define OWN_SUBMISSIONS 4u /* an answer, and wake-ups */

bool mf__own_ring_holds(const struct mf__own_ring *own)
{
    return holds(own);
}

bool mf__ring_has_orphans(struct mf__channel *ch)
{
    return atomic_load(&ring_of(ch)->orphans) > 0;
}

bool mf__own_ring_wake(struct mf__own_ring *own)
{
    if (!atomic_load(&own->awaited))
        return false;
    mf__uring_wake(&own->u);
    return true;
}

static bool take(struct mf__own_ring *own)
{
    if (atomic_exchange(&own->taken, true))
        return false;
    if (holds(own))
        atomic_fetch_sub(&own->home->orphans, 1);
    return true;
}

static struct mf__own_ring *take_one_there_is(struct ring *r)
{
    struct mf__own_ring *first = atomic_load(&r->owns), *own;

    for (own = first; own; own = own->next) {
        if (holds(own) && take(own))
            return own;
    }
    for (own = first; own && !take(own);)
        own = own->next;
    return own;
}

static int open_own(struct mf__own_ring *own)
{
    int rc = mf__uring_open(&own->u, OWN_SUBMISSIONS, 4 * OWN_SUBMISSIONS);

    if (rc < 0)
        return rc;
    rc = own->u.sys->attach(own->u.kernel, own->u.fd, own->home->opts.device);
    if (rc < 0)
        mf__uring_release(&own->u);
    return rc;
}

/* Unless the shared one is shut: then nobody would shut this one. */
static bool enlist(struct ring *r, struct mf__own_ring *own)
{
    bool open;

    pthread_mutex_lock(&r->u.submit);
    open = !atomic_load(&r->u.shut);
    if (open) {
        own->next = atomic_load(&r->owns);
        atomic_store(&r->owns, own);
    }
    mf__uring_unlock(&r->u);
    return open;
}

static void free_own(struct mf__own_ring *own)
{
    pthread_mutex_destroy(&own->u.submit);
    free(own);
}

static int make(struct ring *r, struct mf__own_ring **out)
{
    struct mf__own_ring *own = calloc(1, sizeof(*own));
    int rc;

    if (!own)
        return -ENOMEM;
    own->home = r;
    mf__uring_init(&own->u, r->u.sys, r->u.kernel);
    atomic_init(&own->taken, true);
    rc = open_own(own);
    if (rc == 0 && !enlist(r, own)) {
        mf__uring_release(&own->u);
        rc = -ENODEV;
    }
    if (rc < 0)
        free_own(own);
    else
        *out = own;
    return rc;
}

int mf__ring_take_own(struct mf__channel *ch, struct mf__own_ring **out)
{
    struct ring *r = ring_of(ch);

    *out = take_one_there_is(r);
    return *out ? 0 : make(r, out);
}

void mf__own_ring_give(struct mf__own_ring *own)
{
    struct ring *r = own->home;
    bool orphaned = holds(own);

    if (orphaned) {
        atomic_fetch_add(&r->orphans, 1);
        atomic_store(&r->ch.calling, MF__OWN_RINGS);
    }
    atomic_store(&own->taken, false);
    if (orphaned)
        mf__ring_wake(&r->ch);
}

void mf__owns_shut(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        mf__uring_shut(r, &own->u);
}

void mf__owns_forget(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        mf__uring_forget(&own->u);
}

void mf__owns_close_inherited(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        close(own->u.fd);
}

void mf__owns_free(struct ring *r)
{
    struct mf__own_ring *own = atomic_load(&r->owns);

    while (own) {
        struct mf__own_ring *next = own->next;

        free_own(own);
        own = next;
    }
}
