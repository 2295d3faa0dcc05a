/* SPDX-License-Identifier: MIT */
/* wire.h - bytes to structures and back. No I/O, no allocation, nothing trusted for a length. */
#ifndef MF_WIRE_H
#define MF_WIRE_H

#include "base/base.h"
#include "wire/kernel.h"

/* What the answer to an opcode holds after the 16-byte header. */
enum mf__reply_kind {
    MF__REPLY_NEVER, /* must not be answered */
    MF__REPLY_EMPTY,
    MF__REPLY_ENTRY,
    MF__REPLY_ATTR,
    MF__REPLY_OPEN,
    MF__REPLY_CREATE, /* entry, then open */
    MF__REPLY_DATA,   /* at most the wanted length */
    MF__REPLY_XATTR,  /* data; a size where the wanted length is 0 */
    MF__REPLY_WRITE,
    MF__REPLY_STATFS,
    MF__REPLY_LK,
    MF__REPLY_LSEEK,
    MF__REPLY_BMAP,
    MF__REPLY_IOCTL,
    MF__REPLY_POLL,
    MF__REPLY_STATX,
    MF__REPLY_COPY64,
    MF__REPLY_INIT
};

/* Properties of an opcode (column of opcode.def). */
#define MF__OPC_ACL 0x1u     /* refused to users that the session's ACL excludes */
#define MF__OPC_SESSION 0x2u /* handled by the session itself: INIT, DESTROY, INTERRUPT, NOTIFY_REPLY */
#define MF__OPC_ALWAYS 0x4u  /* answered with success in C when not implemented: RELEASE, RELEASEDIR */
#define MF__OPC_LATER 0x8u   /* known, not offered to filesystems yet */

/* One row of opcode.def. */
struct mf__opcode {
    const char *name;    /* "LOOKUP" */
    uint8_t known;       /* 0 in the holes of the table */
    uint8_t since;       /* protocol minor */
    uint16_t args_size;  /* of the fixed structure after the header, today */
    uint16_t args_least; /* of its oldest form that is accepted */
    uint8_t names;       /* NUL-terminated names that follow */
    uint8_t reply;       /* enum mf__reply_kind */
    uint8_t slot;        /* the MF_OP_* that serves it, 0 = none */
    uint8_t props;       /* MF__OPC_* */
};

#define MF__OPCODES 64u
extern const struct mf__opcode mf__opcodes[MF__OPCODES];
extern const struct mf__opcode mf__no_opcode; /* known = 0 */

/* Row of an opcode; mf__no_opcode for every number that is none (CUSE_INIT included). */
static inline const struct mf__opcode *mf__opcode(uint32_t opcode)
{
    return opcode < MF__OPCODES && mf__opcodes[opcode].known ? &mf__opcodes[opcode] : &mf__no_opcode;
}

/*
 * One message as a transport delivers it: the header copied out, the fixed structure (args), what follows it
 * (body: names, data) and the extension area. On the device they lie one after the other; in a ring entry
 * args and body live in different buffers. Nothing need be aligned.
 */
struct mf__msg {
    struct fuse_in_header hdr;
    const uint8_t *args;
    const uint8_t *body;
    const uint8_t *ext;
    uint32_t args_len;
    uint32_t body_len; /* without the extension area */
    uint32_t ext_len;
};

/*
 * Split one contiguous message of len bytes. -EPROTO: shorter than a header, or lengths that contradict; then the
 * header is there as far as the message goes, the rest of it 0, and the views are empty.
 */
int mf__msg_split(struct mf__msg *msg, const void *buf, size_t len);

/*
 * The same for a ring entry: header and op_in from the 288-byte header buffer, `payload_len` bytes of
 * payload, of which hdr.total_extlen * 8 at the end are the extension area.
 */
int mf__msg_from_ring(struct mf__msg *msg, const void *header, const void *payload, size_t payload_len);

/*
 * Decode into the flat record: everything but buf, req, session, reader, answer. `one` holds the element of
 * a single FORGET. `flags` are the INIT flags in force (SETXATTR_EXT and the like change layouts).
 * 0; -EPROTO malformed; -ENOSYS no such opcode.
 */
int mf__decode(const struct mf__msg *msg, uint64_t flags, struct mf_call *call, struct mf_forget *one);

/* INIT, INTERRUPT: the session's own messages. 0 or -EPROTO. */
int mf__decode_init(const struct mf__msg *msg, struct fuse_init_in *out);
int mf__decode_interrupt(const struct mf__msg *msg, uint64_t *unique);

/* Extension area (7.36 security contexts, 7.38 groups). Iterates records; unknown types are skipped by size. */
struct mf__ext_secctx {
    const char *name; /* NUL-terminated */
    const uint8_t *value;
    uint32_t value_len;
};
/* n-th security context: 0, -ENOENT no more, -EPROTO malformed. */
int mf__ext_secctx(const struct mf__msg *msg, uint32_t n, struct mf__ext_secctx *out);
/* n-th supplementary group: likewise. */
int mf__ext_group(const struct mf__msg *msg, uint32_t n, uint32_t *gid);

/* ---- replies: each writes the body at dst and returns its length --------------------------------- */
size_t mf__put_entry(void *dst, const struct mf_entry *e);                                   /* 128 */
size_t mf__put_attr(void *dst, uint64_t timeout_ns, uint64_t node, const struct mf_attr *a); /* 104; ino 0 = node */
size_t mf__put_open(void *dst, uint64_t fh, uint32_t flags, int32_t backing_id);             /* 16 */
size_t mf__put_write(void *dst, uint32_t size);                                              /* 8 */
size_t mf__put_statfs(void *dst, const struct mf_statfs *st);                                /* 80 */
size_t mf__put_xattr_size(void *dst, uint32_t size);                                         /* 8 */
size_t mf__put_lk(void *dst, const struct mf_lock *lk);                                      /* 24 */
size_t mf__put_lseek(void *dst, uint64_t offset);                                            /* 8 */
size_t mf__put_bmap(void *dst, uint64_t block);                                              /* 8 */
size_t mf__put_poll(void *dst, uint32_t revents);                                            /* 8 */
size_t mf__put_copy64(void *dst, uint64_t bytes);                                            /* 8 */
size_t mf__put_ioctl(void *dst, int32_t result, uint32_t flags, uint32_t in_iovs, uint32_t out_iovs); /* 16 */
size_t mf__put_statx(void *dst, uint64_t timeout_ns, const struct fuse_statx *sx);                    /* 288 */
size_t mf__put_init(void *dst, const struct fuse_init_out *out, uint32_t kernel_minor); /* 8, 24 or 64 by minor */
void mf__put_header(void *dst, size_t body_len, int error, uint64_t unique);            /* 16 at dst */

/*
 * Is this what a filesystem may give as entry, attr? 0 or -EINVAL: bad type bits, size > 2^63-1, ns >= 10^9; in an
 * entry also node 0 or the root where it is no lookup (which may find nothing, and the root at "." and "..").
 */
int mf__check_attr(const struct mf_attr *a);
int mf__check_entry(const struct mf_entry *e, bool lookup);
/* A name that may go to the kernel: 1..4095 bytes, no '/', no NUL. 0 or -EINVAL. */
int mf__check_name(const char *name, uint64_t len);

/*
 * ---- directory entries: bytes written at dst, -ENOSPC, -EINVAL -------------------------------------
 * `type` is S_IFMT bits. In direntplus type and d_ino (the node where it is 0) come from the entry's attributes.
 */
int64_t mf__put_dirent(void *dst, uint64_t room, const char *name, uint64_t name_len, uint64_t ino, uint32_t type,
                       uint64_t next);
int64_t mf__put_direntplus(void *dst, uint64_t room, const char *name, uint64_t name_len, const struct mf_entry *e,
                           uint64_t next);

/*
 * ---- notifications: the whole message at dst, length returned; -ENOSPC, -EINVAL ---------------------
 * store_head writes the 40 bytes before the data, and counts these in the header.
 */
int64_t mf__put_notify_inval_inode(void *dst, size_t room, uint64_t node, int64_t offset, int64_t length);
int64_t mf__put_notify_inval_entry(void *dst, size_t room, uint64_t parent, const char *name, uint64_t name_len,
                                   uint32_t flags);
int64_t mf__put_notify_delete(void *dst, size_t room, uint64_t parent, uint64_t child, const char *name,
                              uint64_t name_len);
int64_t mf__put_notify_poll(void *dst, size_t room, uint64_t kh);
int64_t mf__put_notify_store_head(void *dst, size_t room, uint64_t node, uint64_t offset, uint32_t size);
int64_t mf__put_notify_retrieve(void *dst, size_t room, uint64_t unique, uint64_t node, uint64_t offset, uint32_t size);
int64_t mf__put_notify_prune(void *dst, size_t room, const uint64_t *nodes, uint32_t count);
int64_t mf__put_notify_plain(void *dst, size_t room, int32_t code); /* RESEND, INC_EPOCH */

#endif
