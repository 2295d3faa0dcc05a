/* SPDX-License-Identifier: MIT */
/* ring.h - channels whose requests come over io_uring. */
#ifndef MF_RING_H
#define MF_RING_H

#include "transport/transport.h"

struct mf__ring_opts {
    int device;             /* a descriptor of the connection; stays the caller's */
    uint32_t first_queue;   /* the ring serves queues first, first + step, ... below queues */
    uint32_t step;
    uint32_t queues;        /* of the connection: the possible CPUs */
    uint32_t depth;         /* entries per queue */
    uint32_t max_payload;   /* bytes of the largest payload that the kernel was promised */
    uint32_t index;         /* of the channel */
};

/* Number of possible CPUs, which is the number of queues; 0 = unknown. */
uint32_t mf__ring_queues(void);

/* Whether rings can work here at all: 0, or a negative errno with the reason in words. */
int mf__ring_probe(char *reason, size_t room);

/*
 * Make a ring with its memory. Nothing is registered yet: the first receive does that, in the task that shall
 * serve, since the kernel copies requests in the task that submitted an entry's last command.
 */
int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out);

/* Has the kernel taken the entries? 0 not yet, 1 yes, negative: it refused, and the mount uses the device. */
int mf__ring_state(struct mf__channel *ch);

/*
 * Close the ring while its threads still live: a thread that exits with an entry armed takes the request
 * that comes next down with it. The channel itself stays until its last reference goes.
 */
void mf__ring_shut(struct mf__channel *ch);

#endif
