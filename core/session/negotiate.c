/* SPDX-License-Identifier: MIT */
/* negotiate.c - the INIT handshake, and terms that came from another session. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session/session.h"

/* Asked for wherever the kernel offers them: faster, and of no consequence to a filesystem. */
static const uint64_t WANTED = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                               FUSE_ASYNC_DIO | FUSE_AUTO_INVAL_DATA | FUSE_ABORT_ERROR;

/* Flags that the engine knows how to serve; an option that asks for others is refused. */
static const uint64_t SERVED = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                               FUSE_DONT_MASK | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE |
                               FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV | FUSE_POSIX_ACL | FUSE_ABORT_ERROR |
                               FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA |
                               FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT | FUSE_INIT_EXT | FUSE_SECURITY_CTX |
                               FUSE_CREATE_SUPP_GROUP | FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_PASSTHROUGH |
                               FUSE_NO_EXPORT_SUPPORT | FUSE_ALLOW_IDMAP | FUSE_OVER_IO_URING;

static uint64_t offered_flags(const struct fuse_init_in *in)
{
    uint64_t flags = in->flags;

    if (in->flags & FUSE_INIT_EXT)
        flags |= (uint64_t)in->flags2 << 32;
    return flags;
}

static uint64_t choose_flags(const struct mf_session *s, uint64_t offered)
{
    uint64_t want = WANTED | s->opts.want;

    if (s->opts.flags & MF_OPT_WRITEBACK)
        want |= FUSE_WRITEBACK_CACHE;
    want &= ~s->opts.unwant;
    if (offered & FUSE_INIT_EXT)
        want |= FUSE_INIT_EXT; /* without it the upper word is ignored */
    return want & offered;
}

static void settle_terms(struct mf_session *s, const struct fuse_init_in *in)
{
    struct mf_negotiated *t = &s->terms;

    t->size = sizeof(*t);
    t->version = MF_NEGOTIATED_VERSION;
    t->major = FUSE_KERNEL_VERSION;
    t->kernel_minor = in->minor;
    t->minor = in->minor < MF__MINOR ? in->minor : MF__MINOR;
    t->offered = offered_flags(in);
    t->flags = choose_flags(s, t->offered);
    if (!(t->flags & FUSE_MAX_PAGES) && t->max_write > 32 * MF__PAGE)
        t->max_write = 32 * MF__PAGE;
    t->max_pages = (t->max_write - 1) / MF__PAGE + 1;
    t->max_readahead = s->opts.max_readahead ? s->opts.max_readahead : in->max_readahead;
    if (t->max_readahead > in->max_readahead)
        t->max_readahead = in->max_readahead;
    t->max_background = s->opts.max_background;
    t->time_gran = s->opts.time_gran ? s->opts.time_gran : 1;
    t->implemented = s->implemented;
    t->acl = s->opts.acl;
    t->owner_uid = getuid();
    t->owner_gid = getgid();
}

static int answer_init(struct mf_session *s, struct mf__slot *slot)
{
    const struct mf_negotiated *t = &s->terms;
    struct fuse_init_out out = {
        .major = t->major,
        .minor = t->minor,
        .max_readahead = t->max_readahead,
        .flags = (uint32_t)t->flags,
        .flags2 = (uint32_t)(t->flags >> 32),
        .max_background = (uint16_t)(t->max_background > 0xffff ? 0xffff : t->max_background),
        .max_write = t->max_write,
        .time_gran = t->time_gran,
        .max_pages = (uint16_t)t->max_pages,
        .max_stack_depth = t->flags & FUSE_PASSTHROUGH ? 1u : 0u,
    };
    struct iovec body = { .iov_base = slot->io.body };

    out.congestion_threshold = (uint16_t)(out.max_background * 3u / 4u);
    body.iov_len = mf__put_init(slot->io.body, &out, t->kernel_minor);
    return slot->io.ch->ops->send(slot->io.ch, &slot->io, slot->io.msg.hdr.unique, 0, &body, 1);
}

static int refuse_init(struct mf__slot *slot, int error)
{
    return slot->io.ch->ops->send(slot->io.ch, &slot->io, slot->io.msg.hdr.unique, error, NULL, 0);
}

/* INIT is queued when the mount is made, so it is there or comes at once: never wait for it for ever. */
static int await_init(struct mf_session *s, struct mf__channel *ch, struct mf_error *err)
{
    struct pollfd p = { .fd = ch->fd, .events = POLLIN };
    int n;

    if (ch->fd < 0)
        return 0;
    do {
        n = poll(&p, 1, MF__HANDSHAKE_MS);
    } while (n < 0 && errno == EINTR && !atomic_load(&s->stop));
    if (n < 0)
        return mf__errorf(err, -errno, "cannot wait for the kernel's INIT: %s", mf__strerror(errno));
    if (n == 0)
        return mf__errorf(err, -ETIMEDOUT,
                          "no INIT from the kernel on descriptor %d: was the handshake done already? Then use "
                          "mf_session_from_fd_initialized() with the terms of the first session",
                          ch->fd);
    return 0;
}

static int receive_init(struct mf_session *s, struct mf__slot *slot, struct mf_error *err)
{
    struct mf__channel *ch = s->channels[0];
    struct mf__io *got;
    int rc = await_init(s, ch, err);

    if (rc < 0)
        return rc;
    do {
        rc = ch->ops->receive(ch, &slot->io, &got);
    } while ((rc == -EINTR || rc == -EAGAIN) && !atomic_load(&s->stop));
    if (rc == -EPERM)
        return mf__errorf(err, rc, "descriptor %d is not bound to a mount: mount it first, with fd=%d", ch->fd, ch->fd);
    if (rc < 0)
        return mf__errorf(err, rc, "cannot read INIT: %s", mf__strerror(-rc));
    slot->io.ch = ch;
    return 0;
}

static int check_offer(struct mf_session *s, const struct fuse_init_in *in, struct mf_error *err)
{
    uint64_t lacking = s->opts.want & ~offered_flags(in);

    if (in->major != FUSE_KERNEL_VERSION || in->minor < MF__MIN_MINOR)
        return mf__errorf(err, -EPROTO, "this kernel speaks FUSE protocol %u.%u; %u.%u or newer is needed (Linux 5.4)",
                          in->major, in->minor, FUSE_KERNEL_VERSION, MF__MIN_MINOR);
    if (lacking)
        return mf__errorf(err, -ENOTSUP,
                          "this kernel (FUSE %u.%u) does not offer the INIT flags 0x%llx that were asked for",
                          in->major, in->minor, (unsigned long long)lacking);
    if (s->opts.want & ~SERVED)
        return mf__errorf(err, -ENOTSUP, "manifuse does not serve the INIT flags 0x%llx that were asked for",
                          (unsigned long long)(s->opts.want & ~SERVED));
    return 0;
}

static int agree(struct mf_session *s, struct mf__slot *slot, struct mf_error *err)
{
    struct fuse_init_in in;
    int rc;

    if (slot->io.msg.hdr.opcode != FUSE_INIT || mf__decode_init(&slot->io.msg, &in) < 0) {
        refuse_init(slot, -EIO);
        return mf__errorf(err, -EPROTO, "the first message is no INIT but opcode %u: the connection is in use already",
                          slot->io.msg.hdr.opcode);
    }
    rc = check_offer(s, &in, err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    settle_terms(s, &in);
    /* As early as the kernel allows: no ordinary request is served before the clones are there. */
    rc = mf__channels_clone(s, mf__reader_target(s), err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    rc = mf__transport_choose(s, s->terms.offered, err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    if (s->channels[0]->fd >= 0)
        s->terms.connection = mf__connection_number(s->channels[0]->fd);
    rc = answer_init(s, slot);
    if (rc < 0)
        return mf__errorf(err, rc, "the kernel refused the answer to INIT: %s", mf__strerror(-rc));
    return 0;
}

int mf__handshake(struct mf_session *s, struct mf_error *err)
{
    struct mf__reader *r;
    struct mf__slot *slot;
    int rc;

    s->terms.max_write = s->opts.max_write; /* sizes the buffer that INIT is read to */
    rc = mf__reader_new(s, s->channels[0], &r);
    if (rc < 0)
        return mf__errorf(err, rc, "no memory for the request buffers");
    slot = mf__slot_take(r);
    rc = slot ? receive_init(s, slot, err) : mf__errorf(err, -ECANCELED, "stopped before the handshake");
    if (rc == 0)
        rc = agree(s, slot, err);
    mf__channel_put(r->ch);
    mf__reader_free(r);
    return rc;
}

int mf__terms_check(const struct mf_negotiated *neg, struct mf_error *err)
{
    struct mf_negotiated known;
    const char *wrong = NULL;
    int rc = mf__copy_sized(&known, sizeof(known), neg, offsetof(struct mf_negotiated, connection));

    if (rc == -E2BIG)
        return mf__errorf(err, rc, "the negotiated terms come from a newer library than %s", MF_VERSION_STRING);
    if (rc < 0)
        wrong = "they are too short";
    else if (neg->version != MF_NEGOTIATED_VERSION)
        wrong = "their format is another version's";
    else if (neg->major != FUSE_KERNEL_VERSION || neg->minor < MF__MIN_MINOR)
        wrong = "the protocol is too old";
    else if (neg->max_write < MF__PAGE || neg->max_write > 256 * MF__PAGE || neg->max_write % MF__PAGE)
        wrong = "max_write is impossible";
    else if (neg->acl > MF_ACL_ALL)
        wrong = "the ACL is none";
    if (wrong)
        return mf__errorf(err, -EINVAL, "the negotiated terms cannot be used: %s", wrong);
    if (neg->minor > MF__MINOR || (neg->flags & ~(SERVED | WANTED)))
        return mf__errorf(
            err, -EPROTONOSUPPORT,
            "the connection was negotiated as FUSE %u.%u with flags 0x%llx; this library serves up to %u.%u "
            "and flags 0x%llx: use the library version of the first session",
            neg->major, neg->minor, (unsigned long long)neg->flags, FUSE_KERNEL_VERSION, MF__MINOR,
            (unsigned long long)(SERVED | WANTED));
    if (neg->transport < MF_TRANSPORT_DEVICE || neg->transport > MF_TRANSPORT_MEMORY)
        return mf__errorf(err, -EPROTONOSUPPORT, "the connection's transport is of kind %u, which this library lacks",
                          neg->transport);
    return 0;
}
