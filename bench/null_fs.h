/* SPDX-License-Identifier: MIT */
/*
 * null_fs.h - the filesystem `null`, as a responder without an engine answers it: names f0000 to f9999 (64 KiB
 * of zeros each, read-only, direct I/O) and `big` (4 GiB, cached; what is written to it is counted and lost),
 * time-outs 0. Empty files c000 to c255 may be made and removed; no directory lists them. Keep equal in bench/peers
 * and examples/null.
 */
#ifndef NULL_FS_H
#define NULL_FS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define BIG_SIZE (4ull << 30)
#define NODE_FILE0 2u /* f0000; the root is 1 */
#define NODE_BIG (NODE_FILE0 + FILES)
#define MADE 256u
#define NODE_MADE0 (NODE_BIG + 1) /* c000 */

static _Atomic unsigned char made[MADE];

/* What is negotiated: keep equal to what the engine asks for. */
#define INIT_FLAGS                                                                                      \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA | \
     FUSE_ASYNC_DIO | FUSE_INIT_EXT)
#define MAX_PAGES 256
#define MAX_WRITE (MAX_PAGES * 4096u)

static void fill_attr(struct fuse_attr *a, uint64_t node)
{
    memset(a, 0, sizeof(*a));
    a->ino = node;
    a->blksize = 4096;
    if (node == FUSE_ROOT_ID) {
        a->mode = S_IFDIR | 0755;
        a->nlink = 2;
        return;
    }
    a->mode = S_IFREG | (node < NODE_BIG ? 0444 : 0644);
    a->nlink = 1;
    a->size = node < NODE_BIG ? FILE_SIZE : node == NODE_BIG ? BIG_SIZE : 0;
    a->blocks = a->size / 512;
}

/* The number behind the first letter, `digits` long, or -1. */
static int number_in(const char *name, int digits)
{
    int n = 0;

    for (int i = 1; i <= digits; i++) {
        if (name[i] < '0' || name[i] > '9')
            return -1;
        n = n * 10 + (name[i] - '0');
    }
    return name[digits + 1] ? -1 : n;
}

static uint64_t find_made(const char *name)
{
    int n = name[0] == 'c' ? number_in(name, 3) : -1;

    return n >= 0 && n < (int)MADE ? NODE_MADE0 + (unsigned)n : 0;
}

static uint64_t find_name(const char *name)
{
    uint64_t node;
    int n;

    if (name[0] == 'f') {
        n = number_in(name, 4);
        return n < 0 ? 0 : NODE_FILE0 + (unsigned)n;
    }
    if (strcmp(name, "big") == 0)
        return NODE_BIG;
    node = find_made(name);
    return node && made[node - NODE_MADE0] ? node : 0;
}

/* node 0: there is no such name. */
static int null_entry(uint64_t parent, uint64_t node, void *body)
{
    struct fuse_entry_out *out = body;

    if (parent != FUSE_ROOT_ID || node == 0)
        return -ENOENT;
    memset(out, 0, sizeof(*out)); /* time-outs 0 */
    out->nodeid = node;
    fill_attr(&out->attr, node);
    return sizeof(*out);
}

static int null_getattr(uint64_t node, void *body)
{
    struct fuse_attr_out *out = body;

    memset(out, 0, sizeof(*out));
    fill_attr(&out->attr, node);
    return sizeof(*out);
}

static int null_open(uint64_t node, const struct fuse_open_in *in, void *body)
{
    struct fuse_open_out *out = body;

    if ((in->flags & O_ACCMODE) != O_RDONLY && node < NODE_BIG)
        return -EROFS;
    memset(out, 0, sizeof(*out));
    out->open_flags = node == NODE_BIG ? FOPEN_KEEP_CACHE : FOPEN_DIRECT_IO;
    return sizeof(*out);
}

static int null_create(uint64_t parent, const char *name, void *body)
{
    struct fuse_entry_out *out = body;
    uint64_t node = find_made(name); /* before the answer, which may lie in the same memory */

    if (parent != FUSE_ROOT_ID || node == 0)
        return -EROFS;
    if (atomic_exchange(&made[node - NODE_MADE0], 1))
        return -EEXIST;
    memset(out, 0, sizeof(*out) + sizeof(struct fuse_open_out));
    out->nodeid = node;
    fill_attr(&out->attr, node);
    ((struct fuse_open_out *)(out + 1))->open_flags = FOPEN_DIRECT_IO;
    return sizeof(*out) + sizeof(struct fuse_open_out);
}

static int null_unlink(uint64_t parent, const char *name)
{
    uint64_t node = find_made(name);

    if (parent != FUSE_ROOT_ID || node == 0)
        return -EROFS;
    return atomic_exchange(&made[node - NODE_MADE0], 0) ? 0 : -ENOENT;
}

static int null_write(uint64_t node, const struct fuse_write_in *in, void *body)
{
    struct fuse_write_out *out = body;
    uint32_t size = in->size;

    if (node != NODE_BIG)
        return -EROFS;
    memset(out, 0, sizeof(*out));
    out->size = size;
    return sizeof(*out);
}

/* Length of the answer: whoever sends it sees to the zeros. */
static int null_read(uint64_t node, const struct fuse_read_in *in)
{
    uint64_t size = node < NODE_BIG ? FILE_SIZE : node == NODE_BIG ? BIG_SIZE : 0;

    if (in->offset >= size)
        return 0;
    if (in->size > MAX_WRITE)
        return -EINVAL;
    return (int)(in->size < size - in->offset ? in->size : size - in->offset);
}

/* Directory positions: 1 and 2 are the dots, then f0000 to f9999, then big. */
static int null_readdir(const struct fuse_read_in *in, void *body)
{
    size_t used = 0;

    for (uint64_t i = in->offset; i < FILES + 3; i++) {
        char name[8];
        struct fuse_dirent d = { .ino = FUSE_ROOT_ID, .off = i + 1, .type = S_IFDIR >> 12 };
        size_t rec;

        if (i < 2) {
            snprintf(name, sizeof(name), "%s", i ? ".." : ".");
        } else {
            d.ino = NODE_FILE0 + i - 2;
            d.type = S_IFREG >> 12;
            if (d.ino == NODE_BIG)
                snprintf(name, sizeof(name), "big");
            else
                snprintf(name, sizeof(name), "f%04u", (unsigned)(i - 2) % FILES);
        }
        d.namelen = (uint32_t)strlen(name);
        rec = (sizeof(d) + d.namelen + 7) & ~(size_t)7;
        if (used + rec > in->size || used + rec > MAX_WRITE)
            break;
        memset((char *)body + used, 0, rec);
        memcpy((char *)body + used, &d, offsetof(struct fuse_dirent, name));
        memcpy((char *)body + used + offsetof(struct fuse_dirent, name), name, d.namelen);
        used += rec;
    }
    return (int)used;
}

static int null_statfs(void *body)
{
    struct fuse_statfs_out *out = body;

    memset(out, 0, sizeof(*out));
    out->st.bsize = out->st.frsize = 4096;
    out->st.files = FILES + 2;
    out->st.namelen = 255;
    return sizeof(*out);
}

/*
 * The body of the answer at `body`, its length returned, or -errno. args: the fixed structure; name: what LOOKUP,
 * CREATE and UNLINK mean. Everything else (FLUSH, ACCESS, OPENDIR, xattrs) is told once that it does not exist, and not asked
 * again.
 */
static int null_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    switch (opcode) {
    case FUSE_LOOKUP: return null_entry(node, find_name(name), body);
    case FUSE_GETATTR: return null_getattr(node, body);
    case FUSE_READ: return null_read(node, args);
    case FUSE_WRITE: return null_write(node, args, body);
    case FUSE_OPEN: return null_open(node, args, body);
    case FUSE_CREATE: return null_create(node, name, body);
    case FUSE_UNLINK: return null_unlink(node, name);
    case FUSE_RELEASE: return 0;
    case FUSE_READDIR: return null_readdir(args, body);
    case FUSE_STATFS: return null_statfs(body);
    default: return -ENOSYS;
    }
}

static void fill_init(struct fuse_init_out *out, const struct fuse_init_in *in)
{
    memset(out, 0, sizeof(*out));
    out->major = FUSE_KERNEL_VERSION;
    out->minor = in->minor < 45 ? in->minor : 45;
    out->max_readahead = in->max_readahead;
    out->flags = in->flags & INIT_FLAGS;
    out->max_write = MAX_WRITE;
    out->max_pages = MAX_PAGES;
    out->time_gran = 1;
}

#endif
