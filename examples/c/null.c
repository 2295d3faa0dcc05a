/* SPDX-License-Identifier: MIT */
/*
 * null MOUNTPOINT [options]: the filesystem of the benchmark. f0000 to f9999 hold 64 KiB of zeros each and are
 * read with direct I/O, `big` holds 4 GiB and is cached; names and attributes are never cached. So each call of
 * a client is a request, and what is measured is the engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "serve.h"

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define BIG_SIZE (4ull << 30)
#define FIRST 2u            /* node of f0000 */
#define BIG (FIRST + FILES) /* node of big */
#define MAX_READ (1u << 20)

static const char zeros[MAX_READ];

static struct mf_attr attr_of(uint64_t node)
{
    if (node == MF_ROOT)
        return (struct mf_attr){ .mode = S_IFDIR | 0555, .nlink = 2 };
    return (struct mf_attr){ .mode = S_IFREG | 0444, .nlink = 1, .size = node == BIG ? BIG_SIZE : FILE_SIZE };
}

/* The node of a name, 0 if there is none. */
static uint64_t find(const char *name)
{
    unsigned n = 0;

    if (strcmp(name, "big") == 0)
        return BIG;
    if (name[0] != 'f' || strlen(name) != 5)
        return 0;
    for (int i = 1; i < 5; i++) {
        if (name[i] < '0' || name[i] > '9')
            return 0;
        n = n * 10 + (unsigned)(name[i] - '0');
    }
    return FIRST + n;
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

static void null_open(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    struct mf_open open = { .size = sizeof(open), .flags = node == BIG ? MF_OPEN_KEEP_CACHE : MF_OPEN_DIRECT_IO };

    if ((flags & O_ACCMODE) != O_RDONLY)
        mf_reply_err(req, EROFS);
    else
        mf_reply_open(req, &open);
}

static void null_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    uint64_t size = node == BIG ? BIG_SIZE : FILE_SIZE;
    uint64_t length = in->offset < size ? size - in->offset : 0;

    if (length > in->length)
        length = in->length;
    mf_reply_data(req, zeros, length < MAX_READ ? length : MAX_READ);
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
    .open = null_open,
    .read = null_read,
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
