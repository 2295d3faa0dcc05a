/* SPDX-License-Identifier: MIT */
/* walk.c - from a path to a node, one LOOKUP for each name. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

#define MAX_LINKS 40u

/* ---- the walk's own memory ---------------------------------------------------------------------- */

/* Room for one more element of `size` bytes. */
static int grow(void **array, size_t *room, size_t n, size_t size)
{
    size_t want = *room ? *room * 2 : 8;
    void *more;

    if (n < *room)
        return 0;
    more = realloc(*array, want * size);
    if (!more)
        return -ENOMEM;
    *array = more;
    *room = want;
    return 0;
}

static int push(struct mf__vk_walk *w, const struct mf__vk_node *node)
{
    void *chain = w->chain;
    int rc = grow(&chain, &w->chain_room, w->depth, sizeof(*w->chain));

    w->chain = chain;
    if (rc == 0)
        w->chain[w->depth++] = *node;
    return rc;
}

int mf__vk_walk_remember(struct mf__vk_walk *w, uint64_t node)
{
    void *got = w->got;
    int rc = grow(&got, &w->got_room, w->n_got, sizeof(*w->got));

    w->got = got;
    if (rc < 0) {
        mf_client_forget(w->vk, node, 1);
        return rc;
    }
    w->got[w->n_got++] = (struct mf_forget){ .node = node, .nlookup = 1 };
    return 0;
}

int mf__vk_walk_begin(struct mf__vk_walk *w, struct mf_vkernel *vk)
{
    struct mf__vk_node root = { .id = MF_ROOT, .attr = { .mode = S_IFDIR } };
    int rc = mf__vk_ready(vk);

    *w = (struct mf__vk_walk){ .vk = vk };
    return rc < 0 ? rc : push(w, &root);
}

int mf__vk_walk_end(struct mf__vk_walk *w, int rc)
{
    if (w->n_got > 0)
        mf__vk_forget(w->vk, w->got, w->n_got);
    free(w->got);
    free(w->chain);
    return rc;
}

static struct mf__vk_node *top(struct mf__vk_walk *w)
{
    return &w->chain[w->depth - 1];
}

/* ---- steps -------------------------------------------------------------------------------------- */

int mf__vk_walk_lookup(struct mf__vk_walk *w, uint64_t parent, const char *name, struct mf__vk_node *out)
{
    struct fuse_entry_out e;
    int rc = mf__vk_lookup(w->vk, parent, name, &e);

    if (rc < 0)
        return rc;
    mf__vk_node_of(out, &e);
    return mf__vk_walk_remember(w, e.nodeid);
}

int mf__vk_walk_target(struct mf__vk_walk *w, uint64_t node, char **target)
{
    char *buf;
    uint64_t len;
    int rc;

    if (++w->links > MAX_LINKS)
        return -ELOOP;
    buf = calloc(1, MF__VK_PAGE);
    if (!buf)
        return -ENOMEM;
    rc = mf__vk_readlink(w->vk, node, buf, MF__VK_PAGE - 1, &len);
    if (rc == 0 && len == 0)
        rc = -ENOENT;
    if (rc < 0) {
        free(buf);
        return rc;
    }
    *target = buf;
    return 0;
}

static int follow_link(struct mf__vk_walk *w, uint64_t node)
{
    struct mf__vk_node end;
    char *target = NULL;
    int rc = mf__vk_walk_target(w, node, &target);

    if (rc < 0)
        return rc;
    rc = mf__vk_walk_to(w, target, true, &end);
    free(target);
    return rc;
}

/* Past one name. `last`: nothing follows it, not even a slash. */
static int step(struct mf__vk_walk *w, const char *name, bool last, bool follow)
{
    struct mf__vk_node node;
    int rc;

    if (!S_ISDIR(top(w)->attr.mode))
        return -ENOTDIR;
    if (strcmp(name, ".") == 0)
        return 0;
    if (strcmp(name, "..") == 0) {
        if (w->depth > 1)
            w->depth--;
        return 0;
    }
    rc = mf__vk_walk_lookup(w, top(w)->id, name, &node);
    if (rc < 0)
        return rc;
    if (S_ISLNK(node.attr.mode) && (!last || follow))
        return follow_link(w, node.id);
    return push(w, &node);
}

/* ---- paths -------------------------------------------------------------------------------------- */

/* A copy of the first `len` bytes. */
static char *copy_name(const char *s, size_t len)
{
    char *copy = malloc(len + 1);

    if (copy) {
        memcpy(copy, s, len);
        copy[len] = 0;
    }
    return copy;
}

static int step_over(struct mf__vk_walk *w, const char *at, size_t len, bool follow)
{
    char *name = copy_name(at, len);
    int rc = name ? step(w, name, at[len] == 0, follow) : -ENOMEM;

    free(name);
    return rc;
}

/* All the names in the first `len` bytes of a path. */
static int walk_names(struct mf__vk_walk *w, const char *path, size_t len, bool follow)
{
    size_t at = 0;
    int rc = 0;

    if (len > 0 && path[0] == '/')
        w->depth = 1;
    while (rc == 0 && at < len) {
        size_t n = strcspn(path + at, "/");

        if (n > 0)
            rc = step_over(w, path + at, n, follow);
        at += n + 1;
    }
    return rc;
}

int mf__vk_walk_to(struct mf__vk_walk *w, const char *path, bool follow, struct mf__vk_node *out)
{
    size_t len;
    int rc;

    if (!path)
        return -EINVAL;
    len = strlen(path);
    if (len == 0)
        return -ENOENT;
    rc = walk_names(w, path, len, follow);
    if (rc == 0 && path[len - 1] == '/' && !S_ISDIR(top(w)->attr.mode))
        rc = -ENOTDIR;
    if (rc == 0)
        *out = *top(w);
    return rc;
}

int mf__vk_walk_parent(struct mf__vk_walk *w, const char *path, int none, uint64_t *parent, char **name)
{
    size_t end, start;
    int rc;

    *name = NULL;
    if (!path)
        return -EINVAL;
    end = strlen(path);
    if (end == 0)
        return -ENOENT;
    while (end > 0 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    rc = walk_names(w, path, start, true);
    if (rc < 0)
        return rc;
    if (!S_ISDIR(top(w)->attr.mode))
        return -ENOTDIR;
    *parent = top(w)->id;
    *name = copy_name(path + start, end - start);
    if (!*name)
        return -ENOMEM;
    return !**name || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0 ? none : 0;
}
