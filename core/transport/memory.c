/* SPDX-License-Identifier: MIT */
/* memory.c - messages to and from a virtual kernel in the same process. */
#include <stdlib.h>
#include <string.h>

#include "transport/transport.h"
#include "vkernel/vkernel.h"

#define HEADER_SIZE sizeof(struct fuse_out_header)

/* More pieces than any answer has. */
#define PIECES 8

static int memory_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    size_t len = 0;
    int rc, cancel;

    /* As on the device: afterwards a length that is not 0 says that a whole request is there. */
    if (spare->recv_size >= sizeof(uint32_t))
        memset(spare->recv, 0, sizeof(uint32_t));
    /* Who is cancelled while he waits with the virtual kernel's lock would take it along. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    rc = mf__vk_chan_receive(ch->impl, spare->recv, spare->recv_size, &len);
    pthread_setcancelstate(cancel, NULL);
    if (rc < 0)
        return rc;
    if (mf__msg_split(&spare->msg, spare->recv, len) < 0)
        spare->msg.hdr.opcode = 0;
    spare->ch = ch;
    *got = spare;
    return 0;
}

static int memory_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                       int n)
{
    uint8_t *head = io->body - HEADER_SIZE;
    struct iovec all[PIECES + 1];

    if (n < 0 || n > PIECES)
        return -EINVAL;
    mf__put_header(head, mf__vk_iov_len(iov, n), error, unique);
    all[0] = (struct iovec){ .iov_base = head, .iov_len = HEADER_SIZE };
    if (n > 0)
        memcpy(all + 1, iov, sizeof(*iov) * (size_t)n);
    return mf__vk_chan_send(ch->impl, all, n + 1);
}

static int memory_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    struct iovec all = { .iov_base = (void *)(uintptr_t)msg, .iov_len = len };

    return mf__vk_chan_send(ch->impl, &all, 1);
}

static void memory_wake(struct mf__channel *ch)
{
    mf__vk_chan_kick(ch->impl);
}

static void memory_close(struct mf__channel *ch)
{
    mf__vk_chan_close(ch->impl);
    free(ch);
}

static int memory_clone(struct mf__channel *ch, struct mf__channel **out);

static const struct mf__transport memory_transport = {
    .name = "memory",
    .kind = MF_TRANSPORT_MEMORY,
    .receive = memory_receive,
    .send = memory_send,
    .write_raw = memory_write_raw,
    .clone = memory_clone,
    .wake = memory_wake,
    .close = memory_close,
};

static struct mf__channel *new_channel(void)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return NULL;
    ch->ops = &memory_transport;
    ch->fd = -1;
    atomic_init(&ch->refs, 1);
    return ch;
}

/* The first channel of `vk`, or a clone of `from`. */
static int make_channel(struct mf_vkernel *vk, struct mf__vk_chan *from, struct mf__channel **out)
{
    struct mf__channel *ch = new_channel();
    struct mf__vk_chan *impl = NULL;
    int rc;

    if (!ch)
        return -ENOMEM;
    rc = from ? mf__vk_chan_clone(from, &impl) : mf__vk_chan_first(vk, &impl);
    if (rc < 0) {
        free(ch);
        return rc;
    }
    ch->impl = impl;
    ch->index = impl->index;
    *out = ch;
    return 0;
}

static int memory_clone(struct mf__channel *ch, struct mf__channel **out)
{
    return make_channel(NULL, ch->impl, out);
}

int mf__memory_channel(struct mf_vkernel *vk, struct mf__channel **out)
{
    return make_channel(vk, NULL, out);
}

const struct mf__uring_sys *mf__memory_uring(struct mf__channel *ch, void **kernel)
{
    struct mf__vk_chan *impl = ch->impl;

    if (ch->ops != &memory_transport)
        return NULL;
    *kernel = impl->vk;
    return mf__vk_uring(impl->vk);
}
