/* SPDX-License-Identifier: MIT */
/* dir.c - the names in a directory. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

/* What programs' readdir(3) asks for at a time. */
#define BUFFER 32768u
#define OPEN_FLAGS ((uint32_t)(O_RDONLY | O_NONBLOCK | O_DIRECTORY) | MF__VK_LARGEFILE)

/* A directory that never ends is a mistake of the filesystem, not a reason to hang. */
#define MAX_READS 1000000u

struct listing {
    struct mf__vk_walk *w;
    char *names;
    uint64_t room;
    uint64_t used; /* also of what did not fit */
    uint32_t max_name;
    uint64_t cookie; /* of the last entry */
};

static bool is_dots(const char *name, uint32_t len)
{
    return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'));
}

/* An entry's own header, or -EIO where it is malformed; *size is that of the whole record. */
static int check_dirent(const struct listing *l, const uint8_t *at, size_t fixed, size_t left, struct fuse_dirent *d,
                        size_t *size)
{
    const char *name = (const char *)at + fixed;

    memcpy(d, at + fixed - sizeof(*d), sizeof(*d));
    if (d->namelen == 0 || d->namelen > l->max_name)
        return -EIO;
    *size = mf__round_up(fixed + d->namelen, 8);
    if (*size > left)
        return -ENOSPC;
    return memchr(name, '/', d->namelen) || memchr(name, 0, d->namelen) ? -EIO : 0;
}

static void add_name(struct listing *l, const char *name, uint32_t len)
{
    if (is_dots(name, len))
        return;
    if (l->used <= l->room && l->room - l->used > len) {
        memcpy(l->names + l->used, name, len);
        l->names[l->used + len] = 0;
    }
    l->used += (uint64_t)len + 1;
}

/* What READDIRPLUS says about a name is a lookup. */
static int take_entry(struct listing *l, const uint8_t *at, const struct fuse_dirent *d, const char *name)
{
    struct fuse_entry_out e;

    memcpy(&e, at, sizeof(e));
    if (e.nodeid == 0 || is_dots(name, d->namelen))
        return 0;
    if (e.nodeid == FUSE_ROOT_ID || !mf__vk_attr_ok(&e.attr))
        return -EIO;
    return mf__vk_walk_remember(l->w, e.nodeid);
}

static int parse(struct listing *l, const uint8_t *at, size_t left, bool plus)
{
    size_t fixed = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;

    while (left >= fixed) {
        const char *name = (const char *)at + fixed;
        struct fuse_dirent d;
        size_t size;
        int rc = check_dirent(l, at, fixed, left, &d, &size);

        if (rc == -ENOSPC)
            break;
        if (rc == 0 && plus)
            rc = take_entry(l, at, &d, name);
        if (rc < 0)
            return rc;
        add_name(l, name, d.namelen);
        l->cookie = d.off;
        at += size;
        left -= size;
    }
    return 0;
}

static bool wants_plus(struct mf_vkernel *vk, uint64_t offset)
{
    uint64_t flags = mf__vk_flags(vk);

    /* Without a cache nothing ever says that more of it pays than the beginning. */
    return (flags & FUSE_DO_READDIRPLUS) && (!(flags & FUSE_READDIRPLUS_AUTO) || offset == 0);
}

/* 1: there may be more; 0: the end. */
static int read_some(struct listing *l, const struct mf__vk_file *f, uint8_t *buf, uint32_t size)
{
    struct mf_vkernel *vk = l->w->vk;
    bool plus = wants_plus(vk, l->cookie);
    struct mf__vk_ask ask = {
        .opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR, .node = f->node, .out = buf, .out_room = size
    };
    struct fuse_read_in in = { .fh = f->fh, .offset = l->cookie, .size = size, .flags = f->flags };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0 || ask.out_len == 0)
        return rc;
    rc = parse(l, buf, (size_t)ask.out_len, plus);
    if (rc < 0)
        return rc;
    /* A record that is cut off is asked for again; the same place again would go on for ever. */
    return l->cookie == in.offset ? -EIO : 1;
}

static int list_open(struct listing *l, const struct mf__vk_file *f)
{
    uint32_t most = mf__vk_max_read(l->w->vk);
    uint32_t size = most < BUFFER ? most : BUFFER;
    uint8_t *buf = malloc(size);
    uint32_t reads = 0;
    int rc = buf ? 1 : -ENOMEM;

    while (rc > 0)
        rc = reads++ < MAX_READS ? read_some(l, f, buf, size) : -EIO;
    free(buf);
    return rc;
}

static int list_node(struct listing *l, uint64_t node)
{
    struct mf__vk_file f;
    int rc = mf__vk_open(l->w->vk, node, OPEN_FLAGS, true, &f);
    int closed;

    if (rc < 0)
        return rc;
    rc = list_open(l, &f);
    closed = mf__vk_close(l->w->vk, &f);
    return rc < 0 ? rc : closed;
}

int mf_client_list(struct mf_vkernel *vk, const char *path, char *names, uint64_t *length)
{
    struct mf__vk_walk w;
    struct listing l = { .w = &w, .names = names, .room = *length };
    struct mf__vk_node node;
    int rc = mf__vk_walk_begin(&w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, true, &node);
    if (rc == 0 && !S_ISDIR(node.attr.mode))
        rc = -ENOTDIR;
    if (rc == 0) {
        l.max_name = mf__vk_max_name(vk);
        rc = list_node(&l, node.id);
    }
    if (rc == 0) {
        *length = l.used;
        rc = l.used > l.room ? -ERANGE : 0;
    }
    return mf__vk_walk_end(&w, rc);
}
