/* SPDX-License-Identifier: MIT */
/*
 * null MOUNTPOINT [options]: the filesystem of the benchmark. f0000 to f9999 hold 64 KiB of zeros each and are
 * read with direct I/O; `big` holds 4 GiB, is cached, and forgets what is written to it; c000 to c255, empty and
 * in no list, may be made and removed. Names and attributes are never cached. So each call of a client is a
 * request, and what is measured is the engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "serve.h"

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define BIG_SIZE (4ull << 30)
#define FIRST 2u            /* node of f0000 */
#define BIG (FIRST + FILES) /* node of big */
#define MAX_READ (1u << 20)
#define MAKEABLE 256u
#define FIRST_MADE (BIG + 1) /* node of c000 */

static char zeros[MAX_READ]; /* not const: that would be 1 MiB of the file */
static atomic_bool made[MAKEABLE];

static uint64_t size_of(uint64_t node)
{
    return node < BIG ? FILE_SIZE : node == BIG ? BIG_SIZE : 0;
}

static struct mf_attr attr_of(uint64_t node)
{
    if (node == MF_ROOT)
        return (struct mf_attr){ .mode = S_IFDIR | 0755, .nlink = 2 };
    return (struct mf_attr){ .mode = S_IFREG | (node < BIG ? 0444 : 0644), .nlink = 1, .size = size_of(node) };
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

/* The node of a name that may be made, 0 for others. */
static uint64_t find_makeable(const char *name)
{
    int n = name[0] == 'c' ? number_in(name, 3) : -1;

    return n >= 0 && n < (int)MAKEABLE ? FIRST_MADE + (unsigned)n : 0;
}

/* The node of a name, 0 if there is none. */
static uint64_t find(const char *name)
{
    uint64_t node;

    if (name[0] == 'f') {
        int n = number_in(name, 4);

        return n < 0 ? 0 : FIRST + (unsigned)n;
    }
    if (strcmp(name, "big") == 0)
        return BIG;
    node = find_makeable(name);
    return node && made[node - FIRST_MADE] ? node : 0;
}

static void null_lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    struct mf_entry e = { .size = sizeof(e), .node = parent == MF_ROOT ? find(name) : 0 };

    if (e.node == 0) {
        mf_reply_err(req, ENOENT);
        return;
    }
    e.attr = attr_of(e.node);
    mf_reply_entry(req, &e);
}

static void null_getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    struct mf_attr attr = attr_of(node);

    mf_reply_attr(req, &attr, 0);
}

static void null_setattr(struct mf_req *req, uint64_t node, const struct mf_setattr_in *in, void *user)
{
    struct mf_attr attr = attr_of(node);

    if (node < BIG || in->valid & (MF_SET_MODE | MF_SET_UID | MF_SET_GID))
        mf_reply_err(req, EROFS);
    else
        mf_reply_attr(req, &attr, 0); /* sizes and times are forgotten, too */
}

static void null_create(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t flags,
                        void *user)
{
    struct mf_entry e = { .size = sizeof(e), .node = parent == MF_ROOT ? find_makeable(name) : 0 };
    struct mf_open open = { .size = sizeof(open), .flags = MF_OPEN_DIRECT_IO };

    if (e.node == 0) {
        mf_reply_err(req, EROFS);
    } else if (atomic_exchange(&made[e.node - FIRST_MADE], true)) {
        mf_reply_err(req, EEXIST);
    } else {
        e.attr = attr_of(e.node);
        mf_reply_create(req, &e, &open);
    }
}

static void null_unlink(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    uint64_t node = parent == MF_ROOT ? find_makeable(name) : 0;

    if (node == 0)
        mf_reply_err(req, EROFS);
    else
        mf_reply_err(req, atomic_exchange(&made[node - FIRST_MADE], false) ? 0 : ENOENT);
}

static void null_open(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    struct mf_open open = { .size = sizeof(open), .flags = node == BIG ? MF_OPEN_KEEP_CACHE : MF_OPEN_DIRECT_IO };

    if ((flags & O_ACCMODE) != O_RDONLY && node < BIG)
        mf_reply_err(req, EROFS);
    else
        mf_reply_open(req, &open);
}

static void null_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    uint64_t size = size_of(node);
    uint64_t length = in->offset < size ? size - in->offset : 0;

    if (length > in->length)
        length = in->length;
    mf_reply_data(req, zeros, length < MAX_READ ? length : MAX_READ);
}

static void null_write(struct mf_req *req, uint64_t node, const struct mf_write_in *in, void *user)
{
    if (node == BIG)
        mf_reply_write(req, in->length);
    else
        mf_reply_err(req, EROFS);
}

static void null_readdir(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    char name[] = "f0000";

    for (uint64_t i = in->offset; i <= FILES; i++) {
        int full;

        if (i == FILES) {
            full = mf_dirent_add(req, "big", 3, BIG, S_IFREG, i + 1);
        } else {
            for (uint64_t k = 4, n = i; k > 0; k--, n /= 10)
                name[k] = (char)('0' + n % 10);
            full = mf_dirent_add(req, name, 5, FIRST + i, S_IFREG, i + 1);
        }
        if (full < 0)
            break;
    }
    mf_reply_dirents(req);
}

static void null_statfs(struct mf_req *req, uint64_t node, void *user)
{
    struct mf_statfs st = { .size = sizeof(st), .bsize = 4096, .frsize = 4096, .namelen = 255, .files = FILES + 2 };

    mf_reply_statfs(req, &st);
}

static const struct mf_ops ops = {
    .size = sizeof(ops),
    .lookup = null_lookup,
    .getattr = null_getattr,
    .setattr = null_setattr,
    .unlink = null_unlink,
    .open = null_open,
    .create = null_create,
    .read = null_read,
    .write = null_write,
    .readdir = null_readdir,
    .statfs = null_statfs,
};

int main(int argc, char **argv)
{
    struct mf_cmdline line;

    parse_command_line(argc, argv, 0, &line);
    line.opts.acl = MF_ACL_ALL;
    if (!line.opts.subtype)
        line.opts.subtype = "null";
    return serve(&line, &ops, NULL);
}
