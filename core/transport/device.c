/* SPDX-License-Identifier: MIT */
/* device.c - messages over a descriptor of /dev/fuse, its own or a clone. */
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "transport/transport.h"

/* Bytes of a reply that are cheaper to copy behind the header than to hand over as a second piece. */
#define COPY_LIMIT 8192u

#define MAX_OVERTAKEN 1000 /* requests in a row that the end of the mount overtook */

#define HEADER_SIZE sizeof(struct fuse_out_header)
#define SHORT_BODY (MF__BODY_LEAD - HEADER_SIZE)

static int device_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    ssize_t n;

    /* Afterwards a length that is not 0 says that a whole request is there: the buffer is the journal. */
    memset(spare->recv, 0, sizeof(uint32_t));
    n = read(ch->fd, spare->recv, spare->recv_size);
    /* Said of each request that the end of the mount overtook, too: what comes after them tells whether it was aborted. */
    for (int i = 0; n < 0 && errno == ECONNABORTED && i < MAX_OVERTAKEN; i++)
        n = read(ch->fd, spare->recv, spare->recv_size);
    if (n < 0) {
        /* The request went away while it was copied: there may be another. */
        return errno == ENOENT ? -EAGAIN : -errno;
    }
    if (mf__msg_split(&spare->msg, spare->recv, (size_t)n) < 0)
        spare->msg.hdr.opcode = 0;
    *got = spare;
    return 0;
}

static int written(ssize_t n)
{
    return n < 0 ? -errno : 0;
}

/* The body begins a page, its header ends another: the kernel looks up a single one where both lie in it. */
static int send_short(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                      int n)
{
    uint8_t *head = io->body - MF__BODY_LEAD;
    size_t at = HEADER_SIZE;

    for (int i = 0; i < n; at += iov[i++].iov_len) {
        if (iov[i].iov_len)
            memcpy(head + at, iov[i].iov_base, iov[i].iov_len);
    }
    mf__put_header(head, at - HEADER_SIZE, error, unique);
    return written(write(ch->fd, head, at));
}

static int device_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                       int n)
{
    uint8_t *head = io->body - HEADER_SIZE;
    size_t body = mf__iov_length(iov, n);
    struct iovec all[8];

    if (body <= SHORT_BODY)
        return send_short(ch, io, unique, error, iov, n);
    mf__put_header(head, body, error, unique);
    if (n == 1 && body <= COPY_LIMIT && iov[0].iov_base != io->body)
        memcpy(io->body, iov[0].iov_base, body);
    else if (n != 1 || iov[0].iov_base != io->body)
        goto gather;
    return written(write(ch->fd, head, HEADER_SIZE + body));
gather:
    if ((size_t)n >= MF__ARRAY_SIZE(all))
        return -EINVAL;
    all[0] = (struct iovec){ .iov_base = head, .iov_len = HEADER_SIZE };
    memcpy(all + 1, iov, sizeof(*iov) * (size_t)n);
    return written(writev(ch->fd, all, n + 1));
}

static int device_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    return written(write(ch->fd, msg, len));
}

static int device_clone(struct mf__channel *ch, struct mf__channel **out)
{
    int fd;
    int rc = mf__clone_fd(ch->fd, &fd);

    if (rc < 0)
        return rc;
    rc = mf__device_channel(fd, out);
    if (rc < 0)
        close(fd);
    return rc;
}

static void device_close(struct mf__channel *ch)
{
    if (ch->fd >= 0)
        close(ch->fd);
    free(ch);
}

static const struct mf__transport device_transport = {
    .name = "device",
    .kind = MF_TRANSPORT_DEVICE,
    .receive = device_receive,
    .send = device_send,
    .write_raw = device_write_raw,
    .clone = device_clone,
    .close = device_close,
};

int mf__device_channel(int fd, struct mf__channel **out)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return -ENOMEM;
    ch->ops = &device_transport;
    ch->fd = fd;
    atomic_init(&ch->refs, 1);
    *out = ch;
    return 0;
}
