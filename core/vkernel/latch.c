/* SPDX-License-Identifier: MIT */
/* latch.c - what programs get for operations that the filesystem lacks. */
#include <poll.h>
#include <string.h>

#include "vkernel/vkernel.h"

/* What poll(2) says of a file that has nothing to say. */
#define ALWAYS_READY (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

static bool latches(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS:
    case FUSE_SYNCFS:
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_BMAP:
    case FUSE_POLL:
    case FUSE_FALLOCATE:
    case FUSE_RENAME2:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_STATX: return true;
    default: return false;
    }
}

static int made_up(struct mf__vk_ask *ask, const void *answer, size_t len)
{
    ask->out_len = len;
    if (ask->out_room < len)
        return -ERANGE;
    memcpy(ask->out, answer, len);
    return 0;
}

/* The result for want of the operation. */
static int without(struct mf__vk_ask *ask)
{
    struct fuse_open_out open = { .open_flags = FOPEN_KEEP_CACHE };
    struct fuse_poll_out poll = { .revents = ALWAYS_READY };
    struct fuse_bmap_out bmap = { .block = 0 };

    switch (ask->opcode) {
    case FUSE_LINK: return -EPERM;
    case FUSE_OPENDIR: open.open_flags |= FOPEN_CACHE_DIR; return made_up(ask, &open, sizeof(open));
    case FUSE_OPEN: return made_up(ask, &open, sizeof(open));
    case FUSE_POLL: return made_up(ask, &poll, sizeof(poll));
    case FUSE_BMAP: return made_up(ask, &bmap, sizeof(bmap));
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS:
    case FUSE_SYNCFS: return 0;
    case FUSE_RENAME2: return -EINVAL;
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_TMPFILE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE: return -EOPNOTSUPP;
    case FUSE_IOCTL: return -ENOTTY;
    default: return -ENOSYS; /* where it is latched, there is another way to do it */
    }
}

static void latch(struct mf_vkernel *vk, uint32_t opcode)
{
    pthread_mutex_lock(&vk->lock);
    vk->latched |= 1ull << opcode;
    pthread_mutex_unlock(&vk->lock);
}

bool mf__vk_is_latched(struct mf_vkernel *vk, uint32_t opcode)
{
    bool is;

    pthread_mutex_lock(&vk->lock);
    is = opcode < 64 && (vk->latched >> opcode & 1) != 0;
    pthread_mutex_unlock(&vk->lock);
    return is;
}

int mf__vk_ask(struct mf_vkernel *vk, struct mf__vk_ask *ask)
{
    int rc;

    ask->out_len = 0;
    ask->latched = mf__vk_is_latched(vk, ask->opcode);
    if (ask->latched)
        return without(ask);
    rc = mf__vk_ask_raw(vk, ask, true);
    if (rc != -ENOSYS)
        return rc;
    ask->latched = latches(ask->opcode);
    if (ask->latched)
        latch(vk, ask->opcode);
    return without(ask);
}
