/* SPDX-License-Identifier: MIT */
/* file.c - open files, and whole files by path. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

/* What concerns only the open itself, and is not among an open file's flags. */
#define OPEN_ONLY ((uint32_t)(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC))

#define WRITE_FLAGS ((uint32_t)(O_WRONLY | O_CREAT | O_TRUNC) | MF__VK_LARGEFILE)

/* ---- open files --------------------------------------------------------------------------------- */

int mf__vk_release(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    struct mf__vk_ask ask = { .opcode = f->directory ? FUSE_RELEASEDIR : FUSE_RELEASE, .node = f->node };
    struct fuse_release_in in = { .fh = f->fh, .flags = f->flags };

    if (f->unopened)
        return 0;
    mf__vk_add(&ask, &in, sizeof(in));
    return mf__vk_ask(vk, &ask) == -ETIMEDOUT ? -ETIMEDOUT : 0;
}

static int flush(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    struct mf__vk_ask ask = { .opcode = FUSE_FLUSH, .node = f->node };
    struct fuse_flush_in in = { .fh = f->fh, .lock_owner = MF__VK_LOCK_OWNER };

    if (f->directory || ((f->open_flags & FOPEN_NOFLUSH) && !(mf__vk_flags(vk) & FUSE_WRITEBACK_CACHE)))
        return 0;
    mf__vk_add(&ask, &in, sizeof(in));
    return mf__vk_ask(vk, &ask);
}

int mf__vk_close(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    int flushed = flush(vk, f);
    int released = mf__vk_release(vk, f);

    return flushed < 0 ? flushed : released;
}

static void opened(struct mf__vk_file *f, uint64_t node, uint32_t flags, const struct fuse_open_out *out)
{
    f->node = node;
    f->fh = out->fh;
    f->flags = flags & ~OPEN_ONLY;
    f->open_flags = out->open_flags;
}

int mf__vk_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, bool directory, struct mf__vk_file *out)
{
    bool atomic = (mf__vk_flags(vk) & FUSE_ATOMIC_O_TRUNC) != 0;
    struct fuse_open_out answer;
    struct mf__vk_ask ask = {
        .opcode = directory ? FUSE_OPENDIR : FUSE_OPEN, .node = node, .out = &answer, .out_room = sizeof(answer)
    };
    struct fuse_open_in in = { .flags = flags & ~OPEN_ONLY };
    int rc;

    if ((flags & O_TRUNC) && atomic)
        in.flags |= O_TRUNC;
    if ((in.flags & O_TRUNC) && mf__vk_kills_priv(vk))
        in.open_flags |= FUSE_OPEN_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    *out = (struct mf__vk_file){ .directory = directory, .unopened = ask.latched };
    opened(out, node, flags, &answer);
    if (!(flags & O_TRUNC) || atomic)
        return 0;
    rc = mf__vk_setsize(vk, node, 0, true);
    if (rc < 0)
        mf__vk_close(vk, out);
    return rc;
}

int64_t mf__vk_read(struct mf_vkernel *vk, const struct mf__vk_file *f, void *buf, uint32_t size, uint64_t offset)
{
    struct mf__vk_ask ask = { .opcode = FUSE_READ, .node = f->node, .out = buf, .out_room = size };
    struct fuse_read_in in = { .fh = f->fh, .offset = offset, .size = size, .flags = f->flags };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    return rc < 0 ? rc : (int64_t)ask.out_len;
}

/* One WRITE. */
static int64_t write_piece(struct mf_vkernel *vk, const struct mf__vk_file *f, const void *buf, uint32_t size,
                           uint64_t offset)
{
    struct fuse_write_out out;
    struct mf__vk_ask ask = { .opcode = FUSE_WRITE, .node = f->node, .out = &out, .out_room = sizeof(out) };
    struct fuse_write_in in = { .fh = f->fh, .offset = offset, .size = size, .flags = f->flags };
    int rc;

    if (mf__vk_kills_priv(vk))
        in.write_flags |= FUSE_WRITE_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, buf, size);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return out.size > size ? -EIO : (int64_t)out.size;
}

int64_t mf__vk_pwrite(struct mf_vkernel *vk, const struct mf__vk_file *f, const void *buf, uint64_t length,
                      uint64_t offset)
{
    uint32_t most = mf__vk_max_write(vk);
    uint64_t done = 0;

    while (done < length) {
        uint32_t size = length - done < most ? (uint32_t)(length - done) : most;
        int64_t n = write_piece(vk, f, (const uint8_t *)buf + done, size, offset + done);

        if (n < 0)
            return done > 0 ? (int64_t)done : n;
        done += (uint64_t)n;
        if (n < size)
            return done > 0 ? (int64_t)done : -EIO;
    }
    return (int64_t)done;
}

/* ---- the public calls by node ------------------------------------------------------------------- */

int mf_client_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, uint64_t *fh)
{
    struct mf__vk_file f;
    int rc = mf__vk_ready(vk);

    if (rc == 0)
        rc = mf__vk_open(vk, node, flags | MF__VK_LARGEFILE, false, &f);
    if (rc == 0)
        *fh = f.fh;
    return rc;
}

int mf_client_release(struct mf_vkernel *vk, uint64_t node, uint64_t fh)
{
    /* A file from before the latch has a handle, one from after it has none; 0 is taken for the latter. */
    struct mf__vk_file f = {
        .node = node, .fh = fh, .flags = MF__VK_LARGEFILE, .unopened = fh == 0 && mf__vk_is_latched(vk, FUSE_OPEN)
    };

    return mf__vk_release(vk, &f);
}

int64_t mf_client_read(struct mf_vkernel *vk, uint64_t node, uint64_t fh, void *buf, uint64_t length, uint64_t offset)
{
    struct mf__vk_file f = { .node = node, .fh = fh, .flags = MF__VK_LARGEFILE };
    int rc = mf__vk_ready(vk);
    uint32_t most = mf__vk_max_read(vk);
    uint64_t done = 0;

    if (rc < 0)
        return rc;
    while (done < length) {
        uint32_t size = length - done < most ? (uint32_t)(length - done) : most;
        int64_t n = mf__vk_read(vk, &f, (uint8_t *)buf + done, size, offset + done);

        if (n < 0)
            return done > 0 ? (int64_t)done : n;
        done += (uint64_t)n;
        if (n < size)
            break;
    }
    return (int64_t)done;
}

int64_t mf_client_write(struct mf_vkernel *vk, uint64_t node, uint64_t fh, const void *buf, uint64_t length,
                        uint64_t offset)
{
    struct mf__vk_file f = { .node = node, .fh = fh, .flags = O_WRONLY | MF__VK_LARGEFILE };
    int rc = mf__vk_ready(vk);

    return rc < 0 ? rc : mf__vk_pwrite(vk, &f, buf, length, offset);
}

/* ---- whole files: reading ----------------------------------------------------------------------- */

/*
 * Through the page cache: whole pages, and nothing beyond the size that the attributes say, which is what
 * surprises filesystems that leave the size at 0. With FOPEN_DIRECT_IO until there is no more.
 */
static int read_all(struct mf_vkernel *vk, const struct mf__vk_file *f, uint64_t size, uint8_t *piece, uint8_t *buf,
                    uint64_t *length)
{
    bool direct = (f->open_flags & FOPEN_DIRECT_IO) != 0;
    uint32_t most = mf__vk_max_read(vk);
    uint64_t at = 0;

    while (direct || at < size) {
        uint64_t left = direct ? most : size - at;
        uint64_t want = mf__round_up(left < most ? left : most, MF__VK_PAGE);
        int64_t n = mf__vk_read(vk, f, piece, (uint32_t)want, at);

        if (n < 0)
            return (int)n;
        if ((uint64_t)n > left)
            n = (int64_t)left;
        if ((uint64_t)n > *length - at)
            return -EFBIG;
        if (n > 0)
            memcpy(buf + at, piece, (size_t)n);
        at += (uint64_t)n;
        if (n == 0 || (!direct && (uint64_t)n < want))
            break;
    }
    *length = at;
    return 0;
}

static int read_open(struct mf_vkernel *vk, struct mf__vk_node *node, const struct mf__vk_file *f, void *buf,
                     uint64_t *length)
{
    uint8_t *piece = malloc(mf__vk_max_read(vk));
    int rc = piece ? 0 : -ENOMEM;

    if (rc == 0 && !(f->open_flags & FOPEN_DIRECT_IO))
        rc = mf__vk_refresh(vk, node, &f->fh);
    if (rc == 0)
        rc = read_all(vk, f, node->attr.size, piece, buf, length);
    free(piece);
    return rc;
}

int mf_client_read_file(struct mf_vkernel *vk, const char *path, void *buf, uint64_t *length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    struct mf__vk_file f;
    int rc = mf__vk_walk_begin(&w, vk);
    int closed;

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, true, &node);
    if (rc == 0 && !S_ISREG(node.attr.mode))
        rc = S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    if (rc == 0)
        rc = mf__vk_open(vk, node.id, O_RDONLY | MF__VK_LARGEFILE, false, &f);
    if (rc == 0) {
        rc = read_open(vk, &node, &f, buf, length);
        closed = mf__vk_close(vk, &f);
        rc = rc < 0 ? rc : closed;
    }
    return mf__vk_walk_end(&w, rc);
}

/* ---- whole files: writing ----------------------------------------------------------------------- */

static int create_node(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, struct mf__vk_file *f)
{
    struct mf_vkernel *vk = w->vk;
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } answer;
    struct mf__vk_ask ask = { .opcode = FUSE_CREATE, .node = parent, .out = &answer, .out_room = sizeof(answer) };
    struct fuse_create_in in = { .flags = WRITE_FLAGS, .mode = mf__vk_masked(vk, mode), .umask = MF__VK_UMASK };
    int rc;

    if (mf__vk_kills_priv(vk))
        in.open_flags |= FUSE_OPEN_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, name, strlen(name) + 1);
    mf__vk_add_ext(vk, &ask);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    if (answer.entry.nodeid == 0 || answer.entry.nodeid == FUSE_ROOT_ID || !S_ISREG(answer.entry.attr.mode) ||
        !mf__vk_attr_ok(&answer.entry.attr))
        return -EIO;
    *f = (struct mf__vk_file){ .unopened = false };
    opened(f, answer.entry.nodeid, WRITE_FLAGS, &answer.open);
    return mf__vk_walk_remember(w, f->node);
}

static int create(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, struct mf__vk_file *f)
{
    struct fuse_entry_out e;
    int rc = create_node(w, parent, name, mode, f);

    if (rc != -ENOSYS)
        return rc;
    rc = mf__vk_mknod(w->vk, parent, name, mode, 0, &e);
    if (rc == 0)
        rc = mf__vk_walk_remember(w, e.nodeid);
    if (rc == 0)
        rc = mf__vk_open(w->vk, e.nodeid, WRITE_FLAGS, false, f);
    return rc;
}

/* Opened or created. A link gives *target instead: where to look next. */
static int open_named(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, char **target,
                      struct mf__vk_file *f)
{
    struct mf__vk_node node;
    int rc = mf__vk_walk_lookup(w, parent, name, &node);

    if (rc == -ENOENT)
        return create(w, parent, name, mode, f);
    if (rc < 0)
        return rc;
    if (S_ISLNK(node.attr.mode))
        return mf__vk_walk_target(w, node.id, target);
    if (!S_ISREG(node.attr.mode))
        return S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    return mf__vk_open(w->vk, node.id, WRITE_FLAGS, false, f);
}

static int open_to_write(struct mf__vk_walk *w, const char *path, uint32_t mode, struct mf__vk_file *f)
{
    char *from = NULL;
    int rc;

    do {
        char *target = NULL;
        char *name = NULL;
        uint64_t parent;

        rc = mf__vk_walk_parent(w, path, -EISDIR, &parent, &name);
        if (rc == 0 && path[strlen(path) - 1] == '/')
            rc = -EISDIR;
        if (rc == 0)
            rc = open_named(w, parent, name, mode, &target, f);
        free(name);
        free(from);
        path = from = target;
    } while (from);
    return rc;
}

/* As programs do that write until all is written. */
static int write_all(struct mf_vkernel *vk, const struct mf__vk_file *f, const uint8_t *data, uint64_t length)
{
    uint64_t at = 0;

    while (at < length) {
        int64_t n = mf__vk_pwrite(vk, f, data + at, length - at, at);

        if (n < 0)
            return (int)n;
        at += (uint64_t)n;
    }
    return 0;
}

int mf_client_write_file(struct mf_vkernel *vk, const char *path, const void *data, uint64_t length, uint32_t mode)
{
    struct mf__vk_walk w;
    struct mf__vk_file f;
    int rc = mf__vk_walk_begin(&w, vk);
    int closed;

    if (rc == 0)
        rc = open_to_write(&w, path, S_IFREG | (mode & 07777), &f);
    if (rc == 0) {
        rc = write_all(vk, &f, data, length);
        closed = mf__vk_close(vk, &f);
        rc = rc < 0 ? rc : closed;
    }
    return mf__vk_walk_end(&w, rc);
}
