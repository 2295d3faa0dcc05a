/* SPDX-License-Identifier: MIT */
/* request.c - the exported calls on requests: asking about one, keeping it, answering it. */
#include <string.h>

#include "session/session.h"

const struct mf_call *mf_req_call(struct mf_req *req)
{
    return &mf__token_slot(req)->call;
}

struct mf_session *mf_req_session(struct mf_req *req)
{
    return mf__token_slot(req)->reader->session;
}

int mf_req_defer(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (!mf__token_is_open(req))
        return -EALREADY;
    if (slot->row->reply == MF__REPLY_NEVER)
        return -EINVAL;
    if (!slot->kept) {
        /* The descriptor must live until the answer is out: the kernel takes it nowhere else. */
        mf__channel_get(slot->io.ch);
        slot->kept = true;
    }
    return 0;
}

int mf_req_interrupted(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (!mf__token_is_open(req))
        return -EALREADY;
    return atomic_load(&slot->interrupted) == slot->io.msg.hdr.unique;
}

void *mf_req_buffer(struct mf_req *req, uint64_t *length)
{
    struct mf__slot *slot = mf__token_slot(req);
    bool has = slot->row->reply == MF__REPLY_DATA || slot->row->reply == MF__REPLY_XATTR;

    if (!mf__token_is_open(req) || !has) {
        *length = 0;
        return NULL;
    }
    *length = slot->io.body_size < slot->call.length ? slot->io.body_size : slot->call.length;
    if (slot->call.op == MF_OP_READLINK)
        *length = MF__PAGE - 1;
    return slot->io.body;
}

/* Claim the request for an answer: the slot, or NULL with the error in *rc. */
static struct mf__slot *claim(struct mf_req *req, int *rc)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (slot->row && slot->row->reply == MF__REPLY_NEVER) {
        *rc = -EINVAL;
        return NULL;
    }
    *rc = mf__token_claim(req);
    return *rc < 0 ? NULL : slot;
}

/* As claim(), for answers of one kind: another kind is refused, and the caller gets EIO. */
static struct mf__slot *claim_kind(struct mf_req *req, uint8_t kind, int *rc)
{
    struct mf__slot *slot = claim(req, rc);

    if (slot && slot->row->reply != kind) {
        *rc = mf__refuse(slot, "an answer of another kind than the operation's");
        return NULL;
    }
    return slot;
}

static bool answers_with_nothing(const struct mf__slot *slot)
{
    return slot->row->reply == MF__REPLY_EMPTY || slot->row->reply == MF__REPLY_DATA;
}

int mf_reply_err(struct mf_req *req, int error)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (error < 0 || error >= 512)
        return mf__refuse(slot, "an error that is no positive errno below 512");
    if (error == 0 && !answers_with_nothing(slot))
        return mf__refuse(slot, "success without the body that the operation's answer has");
    return mf__send_error(slot, -error);
}

/* The caller's structure itself where it is of our version, else a copy that is; NULL where that cannot be. */
static const struct mf_entry *known_entry(const struct mf_entry *entry, struct mf_entry *copy)
{
    if (entry->size == sizeof(*entry))
        return entry;
    return mf__copy_sized(copy, sizeof(*copy), entry, sizeof(uint32_t)) < 0 ? NULL : copy;
}

int mf_reply_entry(struct mf_req *req, const struct mf_entry *entry)
{
    struct mf_entry copy;
    const struct mf_entry *e = known_entry(entry, &copy);
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (!e)
        return mf__refuse(slot, "a struct mf_entry without its size, or a newer one");
    return mf__send_entry(slot, e, NULL);
}

int mf_reply_create(struct mf_req *req, const struct mf_entry *entry, const struct mf_open *open)
{
    struct mf_entry copy;
    const struct mf_entry *e = known_entry(entry, &copy);
    struct mf_open o;
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (!e || mf__copy_sized(&o, sizeof(o), open, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_entry or mf_open without its size, or a newer one");
    return mf__send_entry(slot, e, &o);
}

int mf_reply_attr(struct mf_req *req, const struct mf_attr *attr, uint64_t timeout_ns)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_ATTR, &rc);

    if (!slot)
        return rc;
    if (mf__check_attr(attr) < 0)
        return mf__refuse(slot, "attributes whose type, size or times are impossible");
    return mf__send_body(slot, mf__put_attr(slot->io.body, timeout_ns, slot->call.node, attr));
}

int mf_reply_open(struct mf_req *req, const struct mf_open *open)
{
    struct mf_open o;
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_OPEN, &rc);

    if (!slot)
        return rc;
    if (mf__copy_sized(&o, sizeof(o), open, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_open without its size, or a newer one");
    return mf__send_body(slot, mf__put_open(slot->io.body, o.fh, o.flags, o.backing_id));
}

int mf_reply_data(struct mf_req *req, const void *data, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_data(slot, data, length) : rc;
}

int mf_reply_buffer(struct mf_req *req, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_data(slot, slot->io.body, length) : rc;
}

int mf_reply_fd(struct mf_req *req, int fd, uint64_t offset, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_fd(slot, fd, offset, length) : rc;
}

int mf_reply_write(struct mf_req *req, uint64_t written)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_written(slot, written) : rc;
}

int mf_reply_statfs(struct mf_req *req, const struct mf_statfs *st)
{
    struct mf_statfs copy;
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_STATFS, &rc);

    if (!slot)
        return rc;
    if (mf__copy_sized(&copy, sizeof(copy), st, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_statfs without its size, or a newer one");
    return mf__send_body(slot, mf__put_statfs(slot->io.body, &copy));
}

int mf_reply_xattr_size(struct mf_req *req, uint64_t needed)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_XATTR, &rc);

    if (!slot)
        return rc;
    if (slot->call.length)
        return mf__refuse(slot, "a size where the value itself was asked for");
    return mf__send_body(slot, mf__put_xattr_size(slot->io.body, needed > UINT32_MAX ? UINT32_MAX : (uint32_t)needed));
}

int mf_reply_lseek(struct mf_req *req, uint64_t offset)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_LSEEK, &rc);

    return slot ? mf__send_body(slot, mf__put_lseek(slot->io.body, offset)) : rc;
}

int mf_reply_lock(struct mf_req *req, const struct mf_lock *lock)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_LK, &rc);

    return slot ? mf__send_body(slot, mf__put_lk(slot->io.body, lock)) : rc;
}

/* ---- directories --------------------------------------------------------------------------------- */

int64_t mf_dirent_put(void *buf, uint64_t size, uint64_t used, const char *name, uint64_t name_len, uint64_t ino,
                      uint32_t type, uint64_t next)
{
    if (used > size)
        return -EINVAL;
    return mf__put_dirent((uint8_t *)buf + used, size - used, name, name_len, ino, type, next);
}

int mf_dirent_add(struct mf_req *req, const char *name, uint64_t name_len, uint64_t ino, uint32_t type, uint64_t next)
{
    struct mf__slot *slot = mf__token_slot(req);
    uint64_t room;
    void *buf = mf_req_buffer(req, &room);
    int64_t n;

    if (!buf || slot->call.op != MF_OP_READDIR)
        return -EINVAL;
    n = mf_dirent_put(buf, room, slot->dirents, name, name_len, ino, type, next);
    if (n < 0)
        return (int)n;
    slot->dirents += (uint64_t)n;
    return 0;
}

int mf_reply_dirents(struct mf_req *req)
{
    return mf_reply_buffer(req, mf__token_slot(req)->dirents);
}
