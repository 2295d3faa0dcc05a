/* SPDX-License-Identifier: MIT */
/* reply.c - answers on their way out. Each function's caller has claimed the request. */
#include <string.h>
#include <unistd.h>

#include "session/session.h"

#define MAX_SYMLINK 4095u

/*
 * Does this thread, a reader that answers its own request, receive next? If the handler is still at it: that is what such
 * handlers do, and where they do not there is another reader to see it.
 */
static bool receives_next(const struct mf__slot *slot)
{
    const struct mf_session *s = slot->reader->session;
    uint32_t opcode = slot->io.msg.hdr.opcode;

    if (slot->returned || slot->io.own) /* nobody looks after what is held on a ring of its own */
        return slot->returned;
    return opcode < MF_STATS_OPS && atomic_load_explicit(&s->prompt[opcode], memory_order_relaxed) &&
           !atomic_load_explicit(&s->serialize, memory_order_relaxed);
}

int mf__send(struct mf__slot *slot, int error, const struct iovec *iov, int n)
{
    struct mf__channel *ch = slot->io.ch;
    uint64_t unique = slot->io.msg.hdr.unique;
    bool inside = mf__self && mf__self->current == slot;
    bool kept = slot->kept;
    size_t bytes = mf__iov_length(iov, n);
    bool up;
    int rc;

    atomic_store_explicit(&slot->journal.done, unique, memory_order_release);
    slot->io.own_thread = mf__self && atomic_load_explicit(&mf__self->rx, memory_order_relaxed) == ch;
    if (!inside)
        slot->io.own = NULL;
    up = slot->io.own && slot->io.own_thread && mf__placement_step_up(mf__self, slot);
    slot->io.receives_next = inside && slot->io.own_thread && !up && receives_next(slot);
    rc = ch->ops->send(ch, &slot->io, unique, error, iov, n);
    if (up)
        mf__placement_step_back(mf__self);
    if (mf__self)
        mf__self->claimed = NULL;
    if (rc == MF__SENT_LATER) /* that is no harm: a successor sends it once more, and the kernel takes one */
        rc = 0;
    else
        atomic_store_explicit(&slot->journal.sent, unique, memory_order_release);
    mf__count_reply(slot, error, bytes);
    atomic_store_explicit(&slot->unique, 0, memory_order_release);
    if (kept)
        mf__channel_put(ch);
    if (inside)
        slot->inside = true;
    else if ((atomic_fetch_or(&slot->left, MF__LEFT_ANSWERER) & MF__LEFT_HANDLER) != 0)
        mf__slot_give_back(slot);
    return rc;
}

int mf__send_error(struct mf__slot *slot, int error)
{
    return mf__send(slot, error, NULL, 0);
}

int mf__send_body(struct mf__slot *slot, size_t length)
{
    struct iovec iov = { .iov_base = slot->io.body, .iov_len = length };

    atomic_store_explicit(&slot->journal.laid, slot->io.msg.hdr.unique, memory_order_relaxed);
    return mf__send(slot, 0, &iov, 1);
}

int mf__refuse(struct mf__slot *slot, const char *why)
{
    mf__log_limited(slot->reader->session, MF_LOG_ERROR, "%s of node %llu: %s; answered with EIO", slot->row->name,
                    (unsigned long long)slot->call.node, why);
    mf__send_error(slot, -EIO);
    return -EINVAL;
}

/* Is `length` what the kernel takes? 0, a negative errno to answer with, or 1: say the size instead. */
static int check_length(const struct mf__slot *slot, uint64_t length)
{
    switch (slot->row->reply) {
    case MF__REPLY_XATTR:
        if (slot->call.length == 0)
            return 1;
        return length > slot->call.length ? -ERANGE : 0;
    case MF__REPLY_DATA: return length > (slot->call.op == MF_OP_READLINK ? MAX_SYMLINK : slot->call.length) ? -EIO : 0;
    default: return -EIO;
    }
}

static int send_size(struct mf__slot *slot, uint64_t size)
{
    if (size > UINT32_MAX)
        return mf__send_error(slot, -E2BIG);
    return mf__send_body(slot, mf__put_xattr_size(slot->io.body, (uint32_t)size));
}

int mf__send_data(struct mf__slot *slot, const void *data, uint64_t length)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = length };
    int rc = check_length(slot, length);

    if (rc == 1)
        return send_size(slot, length);
    if (rc == -ERANGE)
        return mf__send_error(slot, rc);
    if (rc < 0)
        return mf__refuse(slot, "more data than the kernel asked for, or data for an operation that takes none");
    if (length && !data)
        return mf__refuse(slot, "no data at a length that is not 0");
    if (data == slot->io.body && length > slot->io.body_size)
        return mf__refuse(slot, "more data than the buffer has");
    return mf__send(slot, 0, &iov, length ? 1 : 0);
}

int mf__send_fd(struct mf__slot *slot, int fd, uint64_t offset, uint64_t length)
{
    uint64_t room = slot->call.length < slot->io.body_size ? slot->call.length : slot->io.body_size;
    size_t want = (size_t)(length < room ? length : room);
    size_t done = 0;

    if (slot->row->reply != MF__REPLY_DATA || slot->call.op != MF_OP_READ)
        return mf__refuse(slot, "data from a descriptor for an operation that is no read");
    while (done < want) {
        ssize_t n = pread(fd, slot->io.body + done, want - done, (off_t)(offset + done));

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return mf__send_error(slot, -errno);
        done += n > 0 ? (size_t)n : 0;
    }
    return mf__send_body(slot, done);
}

int mf__send_entry(struct mf__slot *slot, const struct mf_entry *entry, const struct mf_open *open)
{
    bool create = slot->row->reply == MF__REPLY_CREATE;
    size_t n;

    if ((slot->row->reply != MF__REPLY_ENTRY && !create) || create != (open != NULL))
        return mf__refuse(slot, "an entry does not answer this operation");
    if (mf__check_entry(entry, slot->call.op == MF_OP_LOOKUP) < 0)
        return mf__refuse(slot, "an entry whose node, type, size or times are impossible");
    n = mf__put_entry(slot->io.body, entry);
    if (open)
        n += mf__put_open(slot->io.body + n, open->fh, open->flags, open->backing_id);
    return mf__send_body(slot, n);
}

static int answer_entry(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    struct mf_entry e = {
        .size = sizeof(e),
        .node = a->node,
        .generation = a->generation,
        .entry_timeout_ns = a->entry_timeout_ns,
        .attr_timeout_ns = a->attr_timeout_ns,
        .attr = a->attr,
    };
    struct mf_open open = { .size = sizeof(open), .flags = a->open_flags, .fh = a->fh, .backing_id = a->backing_id };

    return mf__send_entry(slot, &e, slot->row->reply == MF__REPLY_CREATE ? &open : NULL);
}

static int answer_data(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;

    if (a->flags & MF_ANSWER_FD)
        return mf__send_fd(slot, a->data_fd, a->data_offset, a->data_len);
    if (slot->row->reply == MF__REPLY_XATTR && !a->data && !a->data_len)
        return slot->call.length ? mf__send_data(slot, slot->io.body, 0) : send_size(slot, a->value);
    return mf__send_data(slot, a->data ? a->data : slot->io.body, a->data_len);
}

int mf__send_written(struct mf__slot *slot, uint64_t value)
{
    uint8_t *body = slot->io.body;
    bool wide = slot->row->reply == MF__REPLY_COPY64;

    if (!wide && slot->row->reply != MF__REPLY_WRITE)
        return mf__refuse(slot, "an answer of another kind than the operation's");
    if (value > slot->call.length)
        return mf__refuse(slot, "more bytes written than there were");
    return mf__send_body(slot, wide ? mf__put_copy64(body, value) : mf__put_write(body, (uint32_t)value));
}

static int answer_statfs(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    struct mf_statfs st;

    if (mf__copy_sized(&st, sizeof(st), a->data ? a->data : slot->io.body, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "statfs wants a struct mf_statfs");
    return mf__send_body(slot, mf__put_statfs(slot->io.body, &st));
}

int mf__send_answer(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    uint8_t *body = slot->io.body;

    switch (slot->row->reply) {
    case MF__REPLY_EMPTY: return mf__send_error(slot, 0);
    case MF__REPLY_ENTRY:
    case MF__REPLY_CREATE: return answer_entry(slot);
    case MF__REPLY_ATTR:
        if (mf__check_attr(&a->attr) < 0)
            return mf__refuse(slot, "attributes whose type, size or times are impossible");
        return mf__send_body(slot, mf__put_attr(body, a->attr_timeout_ns, slot->call.node, &a->attr));
    case MF__REPLY_OPEN: return mf__send_body(slot, mf__put_open(body, a->fh, a->open_flags, a->backing_id));
    case MF__REPLY_DATA:
    case MF__REPLY_XATTR: return answer_data(slot);
    case MF__REPLY_WRITE:
    case MF__REPLY_COPY64: return mf__send_written(slot, a->value);
    case MF__REPLY_STATFS: return answer_statfs(slot);
    case MF__REPLY_LSEEK: return mf__send_body(slot, mf__put_lseek(body, a->value));
    default: return mf__refuse(slot, "no answer of this kind is served");
    }
}
