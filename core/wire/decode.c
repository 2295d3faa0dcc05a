/* SPDX-License-Identifier: MIT */
/*
 * decode.c - a message's bytes to the flat record.
 *
 * Total: any bytes give a record or an error. Names end with the message's first NULs and fill its body
 * exactly, data have exactly the length that the fixed structure says. Nothing is loaded but by memcpy.
 *
 * Where the fields of operations that the table at struct mf_call leaves out go:
 *
 *   getlk, setlk, setlkw  node fh lock_owner; offset = first byte, length = last byte, flags = F_RDLCK ...,
 *                         valid = pid, op_flags = FUSE_LK_*
 *   bmap                  node; offset = block, length = block size
 *   ioctl                 node fh; flags = command, op_flags = FUSE_IOCTL_*, offset = the caller's third argument,
 *                         data and length = the input, offset2 = most bytes of output
 *   poll                  node fh; flags = events, op_flags = FUSE_POLL_*, offset = kernel's poll handle
 *   statx                 node fh; flags = AT_STATX_*, valid = STATX_* wanted
 *   syncfs                node
 *   setupmapping          node fh; offset = in the file, length, offset2 = in the window, flags
 *   removemapping         node; data = struct fuse_removemapping_one[length]
 *   notify_reply          node; offset, data, length
 *   init, interrupt       the header's fields only
 */
#include "wire/wire.h"

#include <string.h>

#define LOAD(msg, in) load(msg, &(in), sizeof(in))

static const uint8_t nothing[1];

/* ---- splitting --------------------------------------------------------------------------------------- */

static void msg_views_empty(struct mf__msg *msg)
{
    msg->args = msg->body = msg->ext = nothing;
    msg->args_len = msg->body_len = msg->ext_len = 0;
}

int mf__msg_split(struct mf__msg *msg, const void *buf, size_t len)
{
    const uint8_t *args = (const uint8_t *)buf + sizeof(msg->hdr);
    uint32_t rest, ext_len, args_len;

    if (len < sizeof(msg->hdr)) {
        memset(msg, 0, sizeof(*msg));
        if (len > 0)
            memcpy(&msg->hdr, buf, len);
        msg_views_empty(msg);
        return -EPROTO;
    }
    memcpy(&msg->hdr, buf, sizeof(msg->hdr));
    ext_len = msg->hdr.total_extlen * 8u;
    rest = msg->hdr.len - (uint32_t)sizeof(msg->hdr);
    if (msg->hdr.len != len || rest < ext_len) {
        msg_views_empty(msg);
        return -EPROTO;
    }
    rest -= ext_len;
    args_len = mf__opcode(msg->hdr.opcode)->args_size;
    if (args_len > rest)
        args_len = rest;
    msg->args = args;
    msg->args_len = args_len;
    msg->body = args + args_len;
    msg->body_len = rest - args_len;
    msg->ext = args + rest;
    msg->ext_len = ext_len;
    return 0;
}

int mf__msg_from_ring(struct mf__msg *msg, const void *header, const void *payload, size_t payload_len)
{
    const uint8_t *in = header;
    uint32_t ext_len, body_len;

    memcpy(&msg->hdr, in + offsetof(struct fuse_uring_req_header, in_out), sizeof(msg->hdr));
    ext_len = msg->hdr.total_extlen * 8u;
    if (payload_len > UINT32_MAX || payload_len < ext_len) {
        msg_views_empty(msg);
        return -EPROTO;
    }
    body_len = (uint32_t)payload_len - ext_len;
    msg->args = in + offsetof(struct fuse_uring_req_header, op_in);
    msg->args_len = mf__opcode(msg->hdr.opcode)->args_size;
    msg->body = payload_len ? payload : nothing;
    msg->ext = msg->body + body_len;
    msg->ext_len = ext_len;
    if (msg->hdr.opcode == FUSE_NOTIFY_REPLY) { /* the one whose structure travels with the data */
        msg->args = msg->body;
        if (msg->args_len > body_len)
            msg->args_len = body_len;
        msg->body += msg->args_len;
        body_len -= msg->args_len;
    }
    msg->body_len = body_len;
    return 0;
}

/* ---- pieces ------------------------------------------------------------------------------------------ */

/* The fixed structure, in today's form or in the oldest that is accepted; what that lacks is 0. */
static inline bool load(const struct mf__msg *msg, void *in, size_t size)
{
    if (msg->args_len == size) {
        memcpy(in, msg->args, size);
        return true;
    }
    if (msg->args_len != mf__opcodes[msg->hdr.opcode].args_least)
        return false;
    memset(in, 0, size);
    memcpy(in, msg->args, msg->args_len);
    return true;
}

/* A string with its NUL between p and end. What follows it, or NULL. */
static inline const uint8_t *string(const uint8_t *p, const uint8_t *end, const char **out, uint32_t *len)
{
    const uint8_t *nul = memchr(p, 0, (size_t)(end - p));

    if (!nul || nul == p)
        return NULL;
    *out = (const char *)p;
    *len = (uint32_t)(nul - p);
    return nul + 1;
}

/* The same for a name in a directory. */
static inline const uint8_t *name(const uint8_t *p, const uint8_t *end, const char **out, uint32_t *len)
{
    const uint8_t *next = string(p, end, out, len);

    return next && !memchr(p, '/', *len) ? next : NULL;
}

/* The body is one name. */
static inline int whole_name(const struct mf__msg *msg, const char **out, uint32_t *len)
{
    const uint8_t *end = msg->body + msg->body_len;

    return name(msg->body, end, out, len) == end ? 0 : -EPROTO;
}

/* `count` records of `size` bytes are the body's beginning. */
static inline int records(const struct mf__msg *msg, uint32_t count, size_t size, struct mf_call *call)
{
    if (count > msg->body_len / size)
        return -EPROTO;
    call->data = msg->body;
    call->length = count;
    return 0;
}

/* The body is `size` bytes of data. */
static inline int whole_data(const struct mf__msg *msg, uint32_t size, struct mf_call *call)
{
    if (msg->body_len != size)
        return -EPROTO;
    call->data = msg->body;
    call->length = size;
    return 0;
}

static inline void begin(const struct mf__msg *msg, struct mf_call *call)
{
    const struct fuse_in_header *hdr = &msg->hdr;

    mf__zero(call, offsetof(struct mf_call, buf)); /* what the session fills lies behind it */
    call->size = sizeof(*call);
    call->op = mf__opcodes[hdr->opcode].slot;
    call->unique = hdr->unique;
    call->node = hdr->nodeid;
    call->fh = MF_NO_FH;
    call->uid = hdr->uid;
    call->gid = hdr->gid;
    call->pid = hdr->pid;
    call->again = (hdr->unique & FUSE_UNIQUE_RESEND) != 0;
}

/* ---- references -------------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct mf_forget) == sizeof(struct fuse_forget_one) &&
                   offsetof(struct mf_forget, node) == offsetof(struct fuse_forget_one, nodeid) &&
                   offsetof(struct mf_forget, nlookup) == offsetof(struct fuse_forget_one, nlookup),
               "BATCH_FORGET's records are handed out where they lie");

static int decode_forget(const struct mf__msg *msg, struct mf_call *call, struct mf_forget *one)
{
    struct fuse_forget_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    *one = (struct mf_forget){ .node = msg->hdr.nodeid, .nlookup = in.nlookup };
    call->data = one;
    call->length = 1;
    return 0;
}

/* The records begin 48 bytes after the header, so they are aligned where the message is. */
static int decode_batch_forget(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_batch_forget_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    return records(msg, in.count, sizeof(struct fuse_forget_one), call);
}

/* ---- attributes -------------------------------------------------------------------------------------- */

static int decode_getattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_getattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    if (in.getattr_flags & FUSE_GETATTR_FH)
        call->fh = in.fh;
    return 0;
}

_Static_assert(MF_SET_MODE == FATTR_MODE && MF_SET_UID == FATTR_UID && MF_SET_GID == FATTR_GID &&
                   MF_SET_SIZE == FATTR_SIZE && MF_SET_ATIME == FATTR_ATIME && MF_SET_MTIME == FATTR_MTIME &&
                   MF_SET_FH == FATTR_FH && MF_SET_ATIME_NOW == FATTR_ATIME_NOW &&
                   MF_SET_MTIME_NOW == FATTR_MTIME_NOW && MF_SET_LOCKOWNER == FATTR_LOCKOWNER &&
                   MF_SET_CTIME == FATTR_CTIME && MF_SET_KILL_SUIDGID == FATTR_KILL_SUIDGID,
               "MF_SET_* are the kernel's bits");

static int decode_setattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_setattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->valid = in.valid;
    if (in.valid & FATTR_FH)
        call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    call->attr.size = in.size;
    call->attr.atime = (int64_t)in.atime;
    call->attr.mtime = (int64_t)in.mtime;
    call->attr.ctime = (int64_t)in.ctime;
    call->attr.atimensec = in.atimensec;
    call->attr.mtimensec = in.mtimensec;
    call->attr.ctimensec = in.ctimensec;
    call->attr.mode = in.mode;
    call->attr.uid = in.uid;
    call->attr.gid = in.gid;
    return 0;
}

static int decode_statx(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_statx_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    if (in.getattr_flags & FUSE_GETATTR_FH)
        call->fh = in.fh;
    call->flags = in.sx_flags;
    call->valid = in.sx_mask;
    return 0;
}

static int decode_access(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_access_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.mask;
    return 0;
}

/* ---- names ------------------------------------------------------------------------------------------- */

static int decode_symlink(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = name(msg->body, end, &call->name, &call->name_len);

    return p && string(p, end, &call->name2, &call->name2_len) == end ? 0 : -EPROTO;
}

static int decode_mknod(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_mknod_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->mode = in.mode;
    call->rdev = in.rdev;
    call->umask = in.umask;
    return whole_name(msg, &call->name, &call->name_len);
}

static int decode_mkdir(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_mkdir_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->mode = in.mode;
    call->umask = in.umask;
    return whole_name(msg, &call->name, &call->name_len);
}

static int two_names(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = name(msg->body, end, &call->name, &call->name_len);

    return p && name(p, end, &call->name2, &call->name2_len) == end ? 0 : -EPROTO;
}

static int decode_rename(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_rename_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node2 = in.newdir;
    return two_names(msg, call);
}

static int decode_rename2(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_rename2_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node2 = in.newdir;
    call->flags = in.flags;
    return two_names(msg, call);
}

static int decode_link(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_link_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node = in.oldnodeid;
    call->node2 = msg->hdr.nodeid;
    return whole_name(msg, &call->name2, &call->name2_len);
}

/* ---- open files -------------------------------------------------------------------------------------- */

static int decode_open(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_open_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.flags;
    call->op_flags = in.open_flags;
    return 0;
}

static int create_args(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_create_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.flags;
    call->mode = in.mode;
    call->umask = in.umask;
    call->op_flags = in.open_flags;
    return 0;
}

static int decode_create(const struct mf__msg *msg, struct mf_call *call)
{
    int rc = create_args(msg, call);

    return rc ? rc : whole_name(msg, &call->name, &call->name_len);
}

/* The kernel fills the name's place with "/", which nobody may take for a name. */
static int decode_tmpfile(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    int rc = create_args(msg, call);

    if (rc || string(msg->body, end, &call->name, &call->name_len) != end)
        return -EPROTO;
    call->name = "";
    call->name_len = 0;
    return 0;
}

static int decode_read(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_read_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->length = in.size;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.read_flags;
    return 0;
}

static int decode_write(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_write_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.write_flags;
    return whole_data(msg, in.size, call);
}

static int decode_flush(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_flush_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    return 0;
}

static int decode_release(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_release_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.release_flags;
    return 0;
}

static int decode_fsync(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_fsync_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->flags = in.fsync_flags;
    return 0;
}

static int decode_fallocate(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_fallocate_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->length = in.length;
    call->mode = in.mode;
    return 0;
}

static int decode_lseek(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_lseek_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->flags = in.whence;
    return 0;
}

/* Flags that the record cannot hold must not be lost in silence; none are defined. */
static inline int narrow_flags(uint64_t flags, struct mf_call *call)
{
    call->flags = (uint32_t)flags;
    return flags >> 32 ? -EPROTO : 0;
}

static int decode_copy(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_copy_file_range_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh_in;
    call->offset = in.off_in;
    call->node2 = in.nodeid_out;
    call->fh2 = in.fh_out;
    call->offset2 = in.off_out;
    call->length = in.len;
    return narrow_flags(in.flags, call);
}

static int decode_bmap(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_bmap_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->offset = in.block;
    call->length = in.blocksize;
    return 0;
}

static int decode_syncfs(const struct mf__msg *msg)
{
    struct fuse_syncfs_in in;

    return LOAD(msg, in) ? 0 : -EPROTO;
}

/* ---- extended attributes ------------------------------------------------------------------------------ */

/*
 * Without SETXATTR_EXT the structure has its old half only. The split cannot know that, so on the device,
 * where both lie together, the other half belongs to the name.
 */
static int decode_setxattr(const struct mf__msg *msg, uint64_t flags, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = msg->body;
    struct fuse_setxattr_in in = { 0 };
    size_t size = flags & FUSE_SETXATTR_EXT ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE;

    if (msg->args_len < size)
        return -EPROTO;
    memcpy(&in, msg->args, size);
    if (msg->body == msg->args + msg->args_len)
        p = msg->args + size;
    p = string(p, end, &call->name, &call->name_len);
    if (!p || (size_t)(end - p) != in.size)
        return -EPROTO;
    call->data = p;
    call->length = in.size;
    call->flags = in.flags;
    call->op_flags = in.setxattr_flags;
    return 0;
}

/* These names are no names in a directory: they may hold a '/'. */
static int whole_xattr_name(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;

    return string(msg->body, end, &call->name, &call->name_len) == end ? 0 : -EPROTO;
}

static int decode_listxattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_getxattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->length = in.size;
    return 0;
}

static int decode_getxattr(const struct mf__msg *msg, struct mf_call *call)
{
    int rc = decode_listxattr(msg, call);

    return rc ? rc : whole_xattr_name(msg, call);
}

/* ---- locks, ioctl, poll, mappings --------------------------------------------------------------------- */

static int decode_lock(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_lk_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.owner;
    call->offset = in.lk.start;
    call->length = in.lk.end;
    call->flags = in.lk.type;
    call->valid = in.lk.pid;
    call->op_flags = in.lk_flags;
    return 0;
}

static int decode_ioctl(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_ioctl_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->flags = in.cmd;
    call->op_flags = in.flags;
    call->offset = in.arg;
    call->offset2 = in.out_size;
    return whole_data(msg, in.in_size, call);
}

static int decode_poll(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_poll_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.kh;
    call->flags = in.events;
    call->op_flags = in.flags;
    return 0;
}

static int decode_setupmapping(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_setupmapping_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.foffset;
    call->length = in.len;
    call->offset2 = in.moffset;
    return narrow_flags(in.flags, call);
}

static int decode_removemapping(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_removemapping_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    return records(msg, in.count, sizeof(struct fuse_removemapping_one), call);
}

/* ---- the session's own -------------------------------------------------------------------------------- */

static int decode_notify_reply(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_notify_retrieve_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->offset = in.offset;
    return whole_data(msg, in.size, call);
}

/* 8 bytes before 7.6, 16 before 7.36; a longer form than ours is cut. */
int mf__decode_init(const struct mf__msg *msg, struct fuse_init_in *out)
{
    uint32_t n = msg->args_len;

    if (msg->hdr.opcode != FUSE_INIT || (n != 8 && n != 16 && n != sizeof(*out)))
        return -EPROTO;
    memset(out, 0, sizeof(*out));
    memcpy(out, msg->args, n);
    return 0;
}

int mf__decode_interrupt(const struct mf__msg *msg, uint64_t *unique)
{
    struct fuse_interrupt_in in;

    if (msg->hdr.opcode != FUSE_INTERRUPT || !LOAD(msg, in))
        return -EPROTO;
    *unique = in.unique;
    return 0;
}

static int decode_session(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_init_in init;
    uint64_t unique;

    switch (msg->hdr.opcode) {
    case FUSE_INIT: return mf__decode_init(msg, &init);
    case FUSE_INTERRUPT: return mf__decode_interrupt(msg, &unique);
    case FUSE_NOTIFY_REPLY: return decode_notify_reply(msg, call);
    default: /* DESTROY */ return 0;
    }
}

/* ---- all ---------------------------------------------------------------------------------------------- */

/* What is seldom asked for, apart so that mf__decode stays small. */
static int decode_rest(const struct mf__msg *msg, struct mf_call *call)
{
    switch (msg->hdr.opcode) {
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return decode_lock(msg, call);
    case FUSE_BMAP: return decode_bmap(msg, call);
    case FUSE_IOCTL: return decode_ioctl(msg, call);
    case FUSE_POLL: return decode_poll(msg, call);
    case FUSE_FALLOCATE: return decode_fallocate(msg, call);
    case FUSE_LSEEK: return decode_lseek(msg, call);
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64: return decode_copy(msg, call);
    case FUSE_SETUPMAPPING: return decode_setupmapping(msg, call);
    case FUSE_REMOVEMAPPING: return decode_removemapping(msg, call);
    case FUSE_SYNCFS: return decode_syncfs(msg);
    case FUSE_TMPFILE: return decode_tmpfile(msg, call);
    case FUSE_STATX: return decode_statx(msg, call);
    default: return decode_session(msg, call);
    }
}

static int decode_names(const struct mf__msg *msg, uint64_t flags, struct mf_call *call)
{
    switch (msg->hdr.opcode) {
    case FUSE_SYMLINK: return decode_symlink(msg, call);
    case FUSE_MKNOD: return decode_mknod(msg, call);
    case FUSE_MKDIR: return decode_mkdir(msg, call);
    case FUSE_RENAME: return decode_rename(msg, call);
    case FUSE_RENAME2: return decode_rename2(msg, call);
    case FUSE_LINK: return decode_link(msg, call);
    case FUSE_CREATE: return decode_create(msg, call);
    case FUSE_SETXATTR: return decode_setxattr(msg, flags, call);
    case FUSE_GETXATTR: return decode_getxattr(msg, call);
    case FUSE_REMOVEXATTR: return whole_xattr_name(msg, call);
    default: return decode_rest(msg, call);
    }
}

int mf__decode(const struct mf__msg *msg, uint64_t flags, struct mf_call *call, struct mf_forget *one)
{
    if (msg->hdr.opcode >= MF__OPCODES || !mf__opcodes[msg->hdr.opcode].known)
        return -ENOSYS;
    begin(msg, call);
    switch (msg->hdr.opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR: return whole_name(msg, &call->name, &call->name_len);
    case FUSE_FORGET: return decode_forget(msg, call, one);
    case FUSE_BATCH_FORGET: return decode_batch_forget(msg, call);
    case FUSE_GETATTR: return decode_getattr(msg, call);
    case FUSE_SETATTR: return decode_setattr(msg, call);
    case FUSE_READLINK:
    case FUSE_STATFS: return 0;
    case FUSE_OPEN:
    case FUSE_OPENDIR: return decode_open(msg, call);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: return decode_read(msg, call);
    case FUSE_WRITE: return decode_write(msg, call);
    case FUSE_FLUSH: return decode_flush(msg, call);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: return decode_release(msg, call);
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR: return decode_fsync(msg, call);
    case FUSE_ACCESS: return decode_access(msg, call);
    case FUSE_LISTXATTR: return decode_listxattr(msg, call);
    default: return decode_names(msg, flags, call);
    }
}
