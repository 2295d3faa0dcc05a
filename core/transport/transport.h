/* SPDX-License-Identifier: MIT */
/*
 * transport.h - how messages come and go. A transport knows the framing (the request header's len, the reply
 * header) and nothing of opcodes.
 *
 * A channel is one endpoint: what was received on it is answered on it. A request and its answer live in a
 * struct mf__io, which the reader's slot embeds. The device reads into the io that the reader offers; a ring
 * returns the io that belongs to the completed entry, with header and payload in the entry's own buffers.
 * Nothing above the transport may assume that args follow the header or that body follows args.
 */
#ifndef MF_TRANSPORT_H
#define MF_TRANSPORT_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "wire/wire.h"

struct mf__channel;

#define MF__BODY_LEAD 512u /* bytes */

struct mf__io {
    struct mf__msg msg; /* the received message, by views */
    uint8_t *recv;      /* device: where a message is read to; WRITE's data fall on a page boundary */
    size_t recv_size;
    uint8_t *body; /* where the body of the answer may be built; MF__BODY_LEAD before it are the transport's */
    size_t body_size;
    struct mf__channel *ch;   /* where it was received, hence where it is answered */
    uint64_t commit_id;       /* ring: id to give back; 0 = nothing is in hand */
    uint32_t entry;           /* ring: index of the entry */
    uint32_t queue;           /* ring: queue */
    bool own_thread;          /* ring: the answer comes from a reader of this very channel, */
    bool receives_next;       /* which is about to receive there: the answer may go out with that */
    struct mf__own_ring *own; /* ring: the reader's own, or NULL; where the answer comes from elsewhere: NULL */
};

struct mf__transport {
    const char *name;
    uint32_t kind; /* enum mf_transport_kind */

    /*
     * Wait for one message. `spare` is an io that the transport may fill; *got is the io that was filled.
     * 0; -EINTR woken, or a signal: look whether to stop; -EAGAIN nothing (non-blocking descriptor);
     * -ENODEV the mount is gone; -ECONNABORTED it was aborted; other: the channel is broken.
     * A message that cannot be split gives 0 with (*got)->msg.hdr as far as it was there and hdr.opcode 0.
     */
    int (*receive)(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got);

    /*
     * Answer the request in `io`: error is 0 or a negative errno; the body is iov[0..n), which may begin in
     * io->body. From any thread. 0; MF__SENT_LATER; -ENOENT nobody waits for it; other errors of the descriptor.
     */
    int (*send)(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov, int n);

    /* Write one ready-made message (notification, answer to INTERRUPT). 0 or -errno. */
    int (*write_raw)(struct mf__channel *ch, const void *msg, size_t len);

    /* Another channel of the same connection. 0, -ENOTSUP or the reason why not. */
    int (*clone)(struct mf__channel *ch, struct mf__channel **out);

    /* Wake a thread blocked in receive on this channel where signals cannot: memory. NULL = a signal does. */
    void (*wake)(struct mf__channel *ch);

    void (*close)(struct mf__channel *ch);
};

/* The answer lies where it belongs, and goes out with the thread's next receive, or with another one's answer. */
#define MF__SENT_LATER 1

/* Ring: before which handlers the one who waits for requests calls another one to wait in his place. */
enum mf__calling {
    MF__CALL_ALWAYS,
    MF__CALL_SLOW, /* such as waited of late; the answers of others may be kept back, and somebody looks from time to time */
    MF__OWN_RINGS /* all, but those who receive on a ring of their own: ring_own.c */
};

/* Of one that waits to take over: time in which a handler that waits is found among such as return at once; */
#define MF__WATCH_NS 200000u
#define MF__PATIENCE 256u /* and looks that found none: each may delay a request by some microseconds */

struct mf__channel {
    const struct mf__transport *ops;
    _Atomic uint32_t refs;    /* readers and unanswered requests: invariant 10 */
    uint32_t index;           /* 0 = the first, n = the n-th made */
    _Atomic uint32_t calling; /* enum mf__calling */
    int fd;                   /* -1 = none */
    void *impl;               /* the transport's own */
};

/* device.c: takes the descriptor over. */
int mf__device_channel(int fd, struct mf__channel **out);
/* clone.c: a fresh descriptor bound to the connection of `fd`. 0, -ENOTSUP, -errno; *out is O_CLOEXEC. */
int mf__clone_fd(int fd, int *out);
/* 1 if fd is a descriptor of /dev/fuse; -EBADF; -ENOTTY if it is something else. */
int mf__is_fuse_fd(int fd);
/* N of /sys/fs/fuse/connections/N, from fdinfo or statfs; 0 = unknown. */
uint64_t mf__connection_number(int fd);

/* memory.c: channel 0 of a virtual kernel. */
struct mf_vkernel;
int mf__memory_channel(struct mf_vkernel *vk, struct mf__channel **out);
/* The system calls of its io_uring, and what they want to have back; NULL: it offers none. */
struct mf__uring_sys;
const struct mf__uring_sys *mf__memory_uring(struct mf__channel *ch, void **kernel);

/* Bytes of all pieces; SIZE_MAX where they are more than can be. */
static inline size_t mf__iov_length(const struct iovec *iov, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++)
        sum = iov[i].iov_len < SIZE_MAX - sum ? sum + iov[i].iov_len : SIZE_MAX;
    return sum;
}

static inline void mf__channel_get(struct mf__channel *ch)
{
    atomic_fetch_add_explicit(&ch->refs, 1, memory_order_relaxed);
}

static inline void mf__channel_put(struct mf__channel *ch)
{
    if (atomic_fetch_sub_explicit(&ch->refs, 1, memory_order_acq_rel) == 1)
        ch->ops->close(ch);
}

#endif
