/* SPDX-License-Identifier: MIT */
/* ring.h - channels whose requests come over io_uring. */
#ifndef MF_RING_H
#define MF_RING_H

#include "transport/transport.h"
#include "wire/uring.h"

/*
 * The system calls of a ring, so that a virtual kernel can stand in for the system. `kernel` is whatever they want
 * to have back. Results are 0 or more, or a negative errno.
 */
struct mf__uring_sys {
    uint32_t (*queues)(void *kernel);                                              /* possible CPUs; 0 = unknown */
    int (*setup)(void *kernel, uint32_t entries, struct mf__uring_params *params); /* a descriptor */
    int (*enter)(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags);
    int (*attach)(void *kernel, int fd, struct mf__channel *device); /* fixed file 0 is the device */
    int (*map)(void *kernel, int fd, size_t size, uint64_t offset, void **out);
    void (*unmap)(void *kernel, void *base, size_t size);
    void (*close)(void *kernel, int fd);
    bool (*over)(void *kernel, struct mf__channel *device); /* the connection is gone: a receive would not wait */
};
extern const struct mf__uring_sys mf__uring_system;
/* Memory that the kernel writes to: a forked child must not share it, or it would be copied under its feet. */
void mf__uring_keep_from_children(const struct mf__region *region);

struct mf__ring_opts {
    const struct mf__uring_sys *sys; /* stays the caller's, like what is below */
    void *kernel;
    struct mf__channel *device; /* of the connection */
    uint32_t first_queue;       /* the ring serves queues first, first + step, ... below queues */
    uint32_t step;
    uint32_t queues;          /* of the connection: the possible CPUs */
    uint32_t depth;           /* entries per queue */
    uint32_t max_payload;     /* bytes of the largest payload that the kernel was promised */
    uint32_t index;           /* of the channel */
    struct mf__channel *last; /* the ring whose last queue is the mount's; NULL: it is this one */
    uint32_t others;          /* then so many rings are registered before that queue */
    bool pool;                /* 7.46: payloads lie in a pool of their queue, at an offset that the kernel says */
    /* The kernel has taken the mount back to the device. Called on a thread that receives, with no lock held. */
    void (*refused)(void *user, int error);
    /* May the handler of such a request wait? On the thread that received it; asked where MF__CALL_SLOW is in force. */
    bool (*may_wait)(void *user, uint32_t opcode);
    /* NULL, or: the receiving thread is about to enter the kernel, so it keeps nothing that others may wait for. */
    void (*leave)(void *user);
    void *user;
};

/* Whether rings can work here at all: 0, or a negative errno with the reason in words. */
int mf__ring_probe(const struct mf__uring_sys *sys, void *kernel, char *reason, size_t room);

/*
 * Make a ring with its memory. Nothing is registered yet: the first receive does that, in the task that shall
 * serve, since the kernel copies requests in the task that submitted an entry's last command.
 */
int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out);

/* What a ring has done since it was made. */
struct mf__ring_counts {
    uint64_t requests; /* that came over it */
    uint64_t behind;   /* of them, that were not the only one to be there */
    uint64_t waits;    /* for completions */
    uint64_t batches;  /* submissions of more than one answer */
    uint64_t calls;    /* of a follower, since a handler might wait */
    uint64_t blocked;  /* times that a follower found the queue behind a handler that waits */
    uint64_t nudges;   /* wake-ups for answers of foreign threads */
    uint64_t own;      /* of the requests, that came over readers' own rings */
};
void mf__ring_counts(struct mf__channel *ch, struct mf__ring_counts *out);

/* A thread of the ring that will not receive on it next: what it has left to that goes out now. own: its own, or NULL. */
void mf__ring_flush(struct mf__channel *ch, struct mf__own_ring *own);

/* Let an idle thread of the ring wait for completions, unless somebody does, or will before he waits for anything else. */
void mf__ring_call(struct mf__channel *ch);
/*
 * Call one if it should have been: nobody has taken what was there already at the last look. From one thread, every some
 * milliseconds while requests come; the threads of the ring themselves look where that was not in vain of late.
 */
void mf__ring_look(struct mf__channel *ch);

/*
 * Rings of readers' own, for where handlers wait: see ring_own.c. Each belongs to the ring that it was taken from, and ends
 * with it. A reader that has one says so at each receive (mf__io.own), until it gives it back.
 */
int mf__ring_take_own(struct mf__channel *ch, struct mf__own_ring **out);
/* On the reader's thread. What still holds an entry another one has to take: readers without one are made to look. */
void mf__own_ring_give(struct mf__own_ring *own);
/* May a request come there? Its reader must wait for it, or give it back. */
bool mf__own_ring_holds(const struct mf__own_ring *own);
/* Wake the reader that waits there. false: it does not. */
bool mf__own_ring_wake(struct mf__own_ring *own);
/* Is there one with an entry that nobody has taken? Those without one take it where MF__OWN_RINGS is in force. */
bool mf__ring_has_orphans(struct mf__channel *ch);

/* Will a receive that follows now find a request without entering the kernel? Unless another thread is faster. */
bool mf__ring_has_more(struct mf__channel *ch);
/* Has the kernel taken the entries? 0 not all yet, 1 yes, negative: it refused, and the mount uses the device. */
int mf__ring_state(struct mf__channel *ch);

/* Another ring of the mount was refused: this one will never serve, and those who receive on it return. */
void mf__ring_refuse(struct mf__channel *ch, int error);

/*
 * The connection has ended: take back the entries that have come. true: these were all. No thread may be receiving, nor any
 * request be in hand. One that is on its way into an entry comes there only when the task that armed it has run; should the
 * ring be closed before that, its client gets ECANCELED.
 */
bool mf__ring_take_back(struct mf__channel *ch);

/*
 * Close the ring while its threads still live: a thread that exits with an entry armed takes the request
 * that comes next down with it. No thread may be receiving; one that comes later gets -ENODEV, and answers that
 * come later go nowhere. The channel itself stays until its last reference goes.
 */
void mf__ring_shut(struct mf__channel *ch);
/* In a child of fork(), before it is closed there: the ring is the parent's, and so are the threads that use it. */
void mf__ring_forget(struct mf__channel *ch);
/* There, as soon as it is one: async-signal-safe. */
void mf__ring_close_inherited(struct mf__channel *ch);

#endif
