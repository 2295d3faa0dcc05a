/* SPDX-License-Identifier: MIT */
/* ring_private.h - what a ring is made of, for the files ring*.c alone. */
#ifndef MF_RING_PRIVATE_H
#define MF_RING_PRIVATE_H

#include <pthread.h>
#include <time.h>

#include "transport/ring.h"

#define WAKE_DATA UINT64_MAX       /* user_data of what wakes */
#define POOL_DATA (UINT64_MAX - 1) /* of the command that tells a pool */
#define BODY_SLACK 65536u          /* for an answer that is built beside the request's payload */
#define SUBMISSIONS 32u            /* answers in one call: as many as clients of a CPU may wait for */
#define NAP_NS 1000000             /* before what failed for want of memory is tried again */
#define TRIES 100u
#define IDLE_WATCH_NS 1000000

#ifdef __SANITIZE_THREAD__
/* What one thread submits and another claims went through the kernel, whose part in it is not seen. */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define HAND_OVER(u) __tsan_release(u)
#define TAKE_OVER(u) __tsan_acquire(u)
#else
#define HAND_OVER(u) ((void)(u))
#define TAKE_OVER(u) ((void)(u))
#endif

struct entry {
    struct fuse_uring_req_header *head;
    uint8_t *payload;   /* its own buffer */
    uint8_t *at;        /* where the payload of the request in hand lies, and its answer's is expected */
    uint64_t commit_id; /* of the request in hand or the last one; 0: never had any */
    uint32_t queue;
    uint32_t next_commit;      /* list of answers that wait to be committed: index + 1 */
    _Atomic uint64_t requests; /* that it brought; whoever has it in hand counts */
    struct iovec iov[2];       /* the kernel remembers what it points to, not the array itself */
};

/* An io_uring with its maps, and the answers that are to go out on it. */
struct uring {
    const struct mf__uring_sys *sys;
    void *kernel; /* what that wants to have back */
    int fd;
    uint8_t *maps;
    size_t maps_size;
    struct mf__sqe *sqes;
    size_t sqes_size;
    _Atomic uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    uint32_t *sq_array;
    uint32_t sq_mask, cq_mask;
    struct mf__cqe *cqes;
    pthread_mutex_t submit;
    uint32_t queued;           /* commands that are about to be submitted; under the lock, like these: */
    uint32_t taken;            /* of the last submission */
    uint32_t submissions;      /* at once */
    _Atomic uint32_t held;     /* answers among those that wait which a reader kept back for a batch */
    _Atomic uint32_t wake_ups; /* that whoever has the lock is to send */
    _Atomic uint32_t waiting;  /* first of the answers that wait for a reader's commit: index + 1 */
    _Atomic bool left;         /* some of them are for whoever has the lock, */
    _Atomic bool waking;       /* who is about to wake somebody, no more */
    _Atomic bool shut;
};

/* See ring_own.c. */
struct mf__own_ring {
    struct uring u;
    struct ring *home;
    struct mf__own_ring *next; /* of the same home */
    _Atomic bool taken;        /* by a reader */
    _Atomic bool awaited;      /* he waits there */
    _Atomic uint32_t entries;  /* armed here, or about to be by an answer that waits: a request may come */
    _Atomic uint64_t requests; /* that came; the reader counts */
};

struct ring {
    struct mf__channel ch;
    struct {
        _Atomic uint64_t behind, waits, batches, calls, blocked, nudges;
    } counts;
    struct mf__ring_opts opts;
    struct uring u;
    struct uring waker;      /* see mf__ring_send_message(); open once it has maps */
    struct entry *entries;   /* first entries of all queues, second ones of all queues, ... */
    _Atomic uint32_t *alive; /* per queue: entries that were not refused */
    uint32_t queue_count;
    uint32_t count;
    struct mf__region headers, payloads, pools;
    size_t payload_room;
    uint32_t failures;        /* to register, for want of memory; with the lock for submissions held, */
    uint32_t armed;           /* like these: entries whose first command is out; */
    bool attached;            /* the device is our fixed file */
    _Atomic uint32_t missing; /* rings that must be registered before our last queue */
    _Atomic bool nudged;      /* a wake-up for the answers of foreign threads is under way */
    _Atomic int state;        /* 0 not all registered, 1 registered, negative: refused */
    _Atomic uint32_t gone;    /* entries that the kernel gave back for good */
    struct mf__own_ring *_Atomic owns;
    _Atomic uint32_t orphans;                  /* own rings with entries that no reader has taken */
    _Alignas(MF__CACHE_LINE) _Atomic bool led; /* a thread waits for completions, or is about to */
    _Atomic uint32_t followers;                /* threads that wait to be that one */
    pthread_mutex_t follow;
    pthread_cond_t called;
    uint32_t calls;              /* under that lock: followers that may go */
    bool watched;                /* likewise: one of them looks from time to time, */
    _Atomic uint32_t vain_looks; /* since a look found a request that nobody took */
    uint32_t head_then;          /* at the last look from elsewhere */
};

static inline struct ring *ring_of(struct mf__channel *ch)
{
    return MF__CONTAINER_OF(ch, struct ring, ch);
}

static inline bool passing(int error)
{
    return error == -EAGAIN || error == -EBUSY || error == -ENOMEM;
}

static inline void count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void nap(void)
{
    const struct timespec time = { .tv_nsec = NAP_NS };

    nanosleep(&time, NULL);
}

static inline bool anything_completed(const struct uring *u)
{
    return atomic_load_explicit(u->cq_head, memory_order_relaxed) !=
           atomic_load_explicit(u->cq_tail, memory_order_acquire);
}

/* Nobody is called before handlers that return at once: else somebody looks, a follower or who looks anyway. */
static inline bool somebody_looks(const struct ring *r)
{
    return atomic_load_explicit(&r->ch.calling, memory_order_relaxed) == MF__CALL_SLOW;
}

/* ---- ring.c ---------------------------------------------------------------------------------------- */

extern const struct mf__transport mf__ring_transport;

/* ---- ring_submit.c --------------------------------------------------------------------------------- */

/*
 * Register what is left, with the lock held. It stops where something completed: that may be the refusal, and the
 * receiver, who looks at it, comes back here; and where other rings come first.
 */
int mf__ring_register(struct ring *r);
/* The kernel wants an entry's first command once more. */
int mf__ring_register_again(struct ring *r, uint32_t index);
/*
 * Send the answer that lies in an entry. 0; MF__SENT_LATER: another reader does that, who is just sending some; an error: it
 * waits for the next receive, unless the ring is shut.
 */
int mf__ring_commit(struct ring *r, struct uring *u, uint32_t index);
/* Let an answer wait for mf__ring_commit_waiting(), which is for a task that lives as long as the ring. */
void mf__ring_let_wait(struct ring *r, struct uring *u, uint32_t index);
int mf__ring_commit_waiting(struct ring *r, struct uring *u);
/* Wake whoever waits for completions there. */
void mf__uring_wake(struct uring *u);
/*
 * The same for who waits on the shared ring, by a message from a ring beside it. Without one whoever wakes is still in that
 * system call, with the lock, when who is woken needs it for the answers, and would have to be woken once more. false: that
 * ring cannot be had, or somebody else is using it.
 */
bool mf__ring_send_message(struct ring *r);
void mf__uring_unlock(struct uring *u); /* instead of pthread_mutex_unlock() on `submit` */

/* ---- ring_follow.c --------------------------------------------------------------------------------- */

void mf__ring_wake(struct mf__channel *ch);
void mf__ring_nudge(struct ring *r); /* the same for answers that wait, from a thread that is none of the session's */
/* Wait to be called, while somebody waits for completions already; served: or takes them without having waited. */
void mf__ring_follow(struct ring *r, bool served);

/* ---- ring_make.c ----------------------------------------------------------------------------------- */

void mf__ring_close(struct mf__channel *ch);
void mf__uring_init(struct uring *u, const struct mf__uring_sys *sys, void *kernel);
/* A ring for so many submissions at once, and completions. */
int mf__uring_open(struct uring *u, uint32_t submissions, uint32_t completions);
void mf__uring_release(struct uring *u);              /* maps and descriptor */
void mf__uring_shut(struct ring *r, struct uring *u); /* the same where there may be others */
void mf__uring_forget(struct uring *u);               /* in a child of fork() */

/* ---- ring_own.c ------------------------------------------------------------------------------------ */

void mf__owns_shut(struct ring *r);
void mf__owns_forget(struct ring *r);
void mf__owns_free(struct ring *r);
void mf__owns_close_inherited(struct ring *r);
static inline bool holds(const struct mf__own_ring *own)
{
    return atomic_load_explicit(&own->entries, memory_order_relaxed) > 0;
}

#endif
