/* SPDX-License-Identifier: MIT */
/* hello MOUNTPOINT [--readers N] [--clone off|auto|require] [-o options]: one file, hello.txt. */
#include <errno.h>
#include <manifuse/manifuse.h>
#include <string.h>

static const char text[] = "Hello World!\n";
static const struct mf_attr dir = { .mode = 0040555, .nlink = 2 };
static const struct mf_attr file = { .mode = 0100444, .nlink = 1, .size = sizeof(text) - 1 };

static void lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    struct mf_entry e = { .size = sizeof(e), .node = 2, .attr = file, .entry_timeout_ns = MF_SECOND };

    if (parent != MF_ROOT || strcmp(name, "hello.txt") != 0)
        mf_reply_err(req, ENOENT);
    else
        mf_reply_entry(req, &e);
}
static void getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    mf_reply_attr(req, node == MF_ROOT ? &dir : &file, MF_SECOND);
}
static void readdir(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    if (in->offset == 0)
        mf_dirent_add(req, "hello.txt", 9, 2, 0100000, 1);
    mf_reply_dirents(req);
}
static void read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    uint64_t left = in->offset < file.size ? file.size - in->offset : 0;
    mf_reply_data(req, text + file.size - left, left < in->length ? left : in->length);
}
static const struct mf_ops ops = { sizeof(ops), .lookup = lookup, .getattr = getattr, .readdir = readdir,
                                   .read = read };
int main(int argc, char **argv)
{
    return mf_main(argc, argv, &ops, NULL);
}
