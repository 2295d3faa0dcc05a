/* SPDX-License-Identifier: MIT */
/*
 * archive SOURCE MOUNTPOINT [options]: serves a .tar, read-only. The index is in memory (archive/), and nothing
 * in it ever changes, so the kernel may keep what it has seen for an hour. Content goes from the archive's
 * descriptor to the kernel without passing through here.
 *
 * open and opendir are left to the engine: the kernel learns once that they are not needed, and never asks again.
 */
#include <errno.h>
#include <sys/stat.h>

#include "archive/index.h"
#include "serve.h"

#define KEEP (3600 * MF_SECOND)

/* NULL if the kernel asks for what never was. */
static const struct node *node_of(const struct archive *a, uint64_t id)
{
    return id - MF_ROOT < a->node_count ? &a->nodes[id - MF_ROOT] : NULL;
}

static void archive_lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    const struct archive *a = user;
    struct mf_entry e = { .size = sizeof(e), .entry_timeout_ns = KEEP, .attr_timeout_ns = KEEP };
    uint32_t found = node_of(a, parent) ? index_find(a, (uint32_t)(parent - MF_ROOT), name, strlen(name)) : NONE;

    if (found != NONE) { /* else node 0: no such name, and that may be kept as well */
        e.node = a->names[found].node + MF_ROOT;
        e.attr = a->nodes[a->names[found].node].attr;
    }
    mf_reply_entry(req, &e);
}

static void archive_getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    const struct node *n = node_of(user, node);

    if (n)
        mf_reply_attr(req, &n->attr, KEEP);
    else
        mf_reply_err(req, ESTALE);
}

static void archive_readlink(struct mf_req *req, uint64_t node, void *user)
{
    const struct archive *a = user;
    const struct node *n = node_of(a, node);

    if (n && S_ISLNK(n->attr.mode))
        mf_reply_data(req, a->text + n->target, n->attr.size);
    else
        mf_reply_err(req, EINVAL);
}

static void archive_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    const struct archive *a = user;
    const struct node *n = node_of(a, node);
    uint64_t left;

    if (!n || !S_ISREG(n->attr.mode)) {
        mf_reply_err(req, EINVAL);
        return;
    }
    left = in->offset < n->attr.size ? n->attr.size - in->offset : 0;
    mf_reply_fd(req, a->fd, n->data + in->offset, left < in->length ? left : in->length);
}

/* Cookies: 1 follows ".", 2 follows "..", 3 + i follows name i. */
static void archive_readdir(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    const struct archive *a = user;
    const struct node *dir = node_of(a, node);
    uint64_t at = in->offset;
    uint32_t i;

    if (!dir || !S_ISDIR(dir->attr.mode)) {
        mf_reply_err(req, ENOTDIR);
        return;
    }
    if (at == 0 && mf_dirent_add(req, ".", 1, node, S_IFDIR, 1) == 0)
        at = 1;
    if (at == 1 && mf_dirent_add(req, "..", 2, dir->parent + MF_ROOT, S_IFDIR, 2) == 0)
        at = 2;
    if (at == 2)
        i = dir->children;
    else if (at > 2 && at - 3 < a->name_count && a->names[at - 3].parent == node - MF_ROOT)
        i = a->names[at - 3].next;
    else
        i = NONE; /* no room for the first two, or a place that never was */
    for (; i != NONE; i = a->names[i].next) {
        const struct name *n = &a->names[i];

        if (mf_dirent_add(req, a->text + n->text, n->length, n->node + MF_ROOT, a->nodes[n->node].attr.mode & S_IFMT,
                          i + 3ull) < 0)
            break;
    }
    mf_reply_dirents(req);
}

static void archive_statfs(struct mf_req *req, uint64_t node, void *user)
{
    const struct archive *a = user;
    struct mf_statfs st = {
        .size = sizeof(st),
        .blocks = (a->bytes + 511) / 512,
        .files = a->node_count,
        .bsize = 4096,
        .frsize = 512,
        .namelen = NAME_LIMIT,
    };

    mf_reply_statfs(req, &st);
}

static const struct mf_ops ops = {
    .size = sizeof(ops),
    .lookup = archive_lookup,
    .getattr = archive_getattr,
    .readlink = archive_readlink,
    .read = archive_read,
    .readdir = archive_readdir,
    .statfs = archive_statfs,
};

int main(int argc, char **argv)
{
    struct mf_cmdline line;
    struct archive a;
    char options[sizeof(line.options) + 4];
    int status;

    parse_command_line(argc, argv, 1, &line);
    if (archive_open(&a, line.source) < 0)
        return 1;
    snprintf(options, sizeof(options), "ro%s%s", line.opts.mount_options ? "," : "",
             line.opts.mount_options ? line.opts.mount_options : "");
    line.opts.mount_options = options;
    line.opts.fsname = line.source;
    line.opts.subtype = "archive";
    status = serve(&line, &ops, &a);
    archive_close(&a);
    return status;
}
