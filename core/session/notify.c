/* SPDX-License-Identifier: MIT */
/* notify.c - messages that the filesystem sends of its own accord. */
#include "session/session.h"

#define MESSAGE_MAX 4352u /* a name of 4095 bytes and what stands before it */

static int notify(struct mf_session *s, const void *msg, int64_t len)
{
    struct mf__channel *ch = NULL;
    int rc;

    if (len < 0)
        return (int)len;
    pthread_mutex_lock(&s->lock);
    if (s->channel_count) {
        ch = s->channels[0];
        mf__channel_get(ch);
    }
    pthread_mutex_unlock(&s->lock);
    if (!ch)
        return -ENOTCONN;
    rc = ch->ops->write_raw(ch, msg, (size_t)len);
    mf__channel_put(ch);
    return rc == -ENOENT ? 0 : rc; /* the kernel knew nothing of it: that is what was wanted */
}

int mf_notify_inval_inode(struct mf_session *s, uint64_t node, int64_t offset, int64_t length)
{
    uint8_t msg[64];

    return notify(s, msg, mf__put_notify_inval_inode(msg, sizeof(msg), node, offset, length));
}

int mf_notify_inval_entry(struct mf_session *s, uint64_t parent, const char *name, uint64_t name_len)
{
    uint8_t msg[MESSAGE_MAX];

    return notify(s, msg, mf__put_notify_inval_entry(msg, sizeof(msg), parent, name, name_len, 0));
}
