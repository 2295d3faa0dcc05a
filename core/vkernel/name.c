/* SPDX-License-Identifier: MIT */
/* name.c - calls that make, remove and rename names, and those that ask or change what a name stands for. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

#define RENAME_NOREPLACE_ 1u
#define RENAME_EXCHANGE_ 2u
#define RENAME_ALL 7u

/* A name to act on: the directory that it is, or is to be, in, and what stands there. */
struct place {
    struct mf__vk_walk w;
    uint64_t parent;
    char *name;
    bool exists;
    struct mf__vk_node node;
};

static int find(struct place *p, struct mf_vkernel *vk, const char *path, int none)
{
    int rc;

    *p = (struct place){ .exists = false };
    rc = mf__vk_walk_begin(&p->w, vk);
    if (rc == 0)
        rc = mf__vk_walk_parent(&p->w, path, none, &p->parent, &p->name);
    if (rc < 0)
        return rc;
    rc = mf__vk_walk_lookup(&p->w, p->parent, p->name, &p->node);
    p->exists = rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

static int leave(struct place *p, int rc)
{
    free(p->name);
    return mf__vk_walk_end(&p->w, rc);
}

/* ---- making ------------------------------------------------------------------------------------- */

static int find_free(struct place *p, struct mf_vkernel *vk, const char *path)
{
    int rc = find(p, vk, path, -EEXIST);

    return rc == 0 && p->exists ? -EEXIST : rc;
}

/* Ask for a new node, and remember the reference that comes with it. */
static int make(struct place *p, struct mf__vk_ask *ask, uint32_t mode)
{
    struct fuse_entry_out e;
    int rc = mf__vk_make(p->w.vk, ask, mode, &e);

    return rc < 0 ? rc : mf__vk_walk_remember(&p->w, e.nodeid);
}

int mf_client_mkdir(struct mf_vkernel *vk, const char *path, uint32_t mode)
{
    struct place p;
    int rc = find_free(&p, vk, path);

    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_MKDIR, .node = p.parent };
        struct fuse_mkdir_in in = { .mode = mf__vk_masked(vk, mode & 01777), .umask = MF__VK_UMASK };

        mf__vk_add(&ask, &in, sizeof(in));
        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        mf__vk_add_ext(vk, &ask);
        rc = make(&p, &ask, S_IFDIR);
    }
    return leave(&p, rc);
}

int mf_client_symlink(struct mf_vkernel *vk, const char *path, const char *target)
{
    struct place p;
    int rc = find_free(&p, vk, path);

    if (rc == 0 && (!target || !*target))
        rc = -ENOENT;
    if (rc == 0 && strlen(target) >= MF__VK_PAGE)
        rc = -ENAMETOOLONG;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_SYMLINK, .node = p.parent };

        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        mf__vk_add(&ask, target, strlen(target) + 1);
        mf__vk_add_ext(vk, &ask);
        rc = make(&p, &ask, S_IFLNK);
    }
    return leave(&p, rc);
}

int mf_client_mknod(struct mf_vkernel *vk, const char *path, uint32_t mode, uint32_t rdev)
{
    struct fuse_entry_out e;
    struct place p;
    int rc = find_free(&p, vk, path);

    if ((mode & S_IFMT) == 0)
        mode |= S_IFREG;
    if (rc == 0 && S_ISDIR(mode))
        rc = -EPERM;
    if (rc == 0)
        rc = mf__vk_mknod(vk, p.parent, p.name, mode, rdev, &e);
    if (rc == 0)
        rc = mf__vk_walk_remember(&p.w, e.nodeid);
    return leave(&p, rc);
}

int mf_client_link(struct mf_vkernel *vk, const char *path, const char *newpath)
{
    struct mf__vk_node old;
    struct mf__vk_walk w;
    struct place p = { .exists = false };
    int rc = mf__vk_walk_begin(&w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, false, &old);
    if (rc < 0)
        return mf__vk_walk_end(&w, rc);
    rc = find_free(&p, vk, newpath);
    if (rc == 0 && S_ISDIR(old.attr.mode))
        rc = -EPERM;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_LINK, .node = p.parent };
        struct fuse_link_in in = { .oldnodeid = old.id };

        mf__vk_add(&ask, &in, sizeof(in));
        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        rc = make(&p, &ask, old.attr.mode);
    }
    rc = leave(&p, rc);
    return mf__vk_walk_end(&w, rc);
}

/* ---- removing, renaming ------------------------------------------------------------------------- */

static int remove_name(struct mf_vkernel *vk, const char *path, bool directory)
{
    struct place p;
    int rc = find(&p, vk, path, directory ? -EBUSY : -EISDIR);

    if (rc == 0 && !p.exists)
        rc = -ENOENT;
    if (rc == 0 && directory != (S_ISDIR(p.node.attr.mode) != 0))
        rc = directory ? -ENOTDIR : -EISDIR;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = directory ? FUSE_RMDIR : FUSE_UNLINK, .node = p.parent };

        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        rc = mf__vk_ask(vk, &ask);
    }
    return leave(&p, rc);
}

int mf_client_unlink(struct mf_vkernel *vk, const char *path)
{
    return remove_name(vk, path, false);
}

int mf_client_rmdir(struct mf_vkernel *vk, const char *path)
{
    return remove_name(vk, path, true);
}

/* What is decided before the filesystem is asked; 1: nothing is left to do. */
static int check_rename(const struct place *from, const struct place *to, uint32_t flags)
{
    bool from_dir = S_ISDIR(from->node.attr.mode);

    if (!from->exists)
        return -ENOENT;
    if ((flags & RENAME_EXCHANGE_) && !to->exists)
        return -ENOENT;
    if ((flags & RENAME_NOREPLACE_) && to->exists)
        return -EEXIST;
    if (!to->exists)
        return 0;
    if (from->node.id == to->node.id)
        return 1;
    if (!(flags & RENAME_EXCHANGE_) && from_dir != (S_ISDIR(to->node.attr.mode) != 0))
        return from_dir ? -ENOTDIR : -EISDIR;
    return 0;
}

static int rename_places(struct mf_vkernel *vk, const struct place *from, const struct place *to, uint32_t flags)
{
    struct mf__vk_ask ask = { .opcode = flags ? FUSE_RENAME2 : FUSE_RENAME, .node = from->parent };
    struct fuse_rename_in plain = { .newdir = to->parent };
    struct fuse_rename2_in with_flags = { .newdir = to->parent, .flags = flags };

    if (flags)
        mf__vk_add(&ask, &with_flags, sizeof(with_flags));
    else
        mf__vk_add(&ask, &plain, sizeof(plain));
    mf__vk_add(&ask, from->name, strlen(from->name) + 1);
    mf__vk_add(&ask, to->name, strlen(to->name) + 1);
    return mf__vk_ask(vk, &ask);
}

int mf_client_rename(struct mf_vkernel *vk, const char *path, const char *newpath, uint32_t flags)
{
    struct place from, to;
    int rc;

    if ((flags & ~RENAME_ALL) || ((flags & RENAME_EXCHANGE_) && flags != RENAME_EXCHANGE_))
        return -EINVAL;
    rc = find(&from, vk, path, -EBUSY);
    if (rc < 0)
        return leave(&from, rc);
    rc = find(&to, vk, newpath, -EBUSY);
    if (rc == 0)
        rc = check_rename(&from, &to, flags);
    if (rc == 0)
        rc = rename_places(vk, &from, &to, flags);
    rc = leave(&to, rc);
    return leave(&from, rc > 0 ? 0 : rc);
}

/* ---- asking, changing --------------------------------------------------------------------------- */

/* Walk to the node; the walk must be ended whatever the result. */
static int reach(struct mf__vk_walk *w, struct mf_vkernel *vk, const char *path, bool follow, struct mf__vk_node *node)
{
    int rc = mf__vk_walk_begin(w, vk);

    return rc < 0 ? rc : mf__vk_walk_to(w, path, follow, node);
}

int mf_client_stat(struct mf_vkernel *vk, const char *path, struct mf_attr *out)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = reach(&w, vk, path, true, &node);

    if (rc == 0)
        rc = mf__vk_refresh(vk, &node, NULL);
    if (rc == 0 && out)
        *out = node.attr;
    return mf__vk_walk_end(&w, rc);
}

int mf_client_readlink(struct mf_vkernel *vk, const char *path, char *target, uint64_t *length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    uint64_t len = 0;
    int rc = reach(&w, vk, path, false, &node);

    if (rc == 0 && !S_ISLNK(node.attr.mode))
        rc = -EINVAL;
    if (rc == 0) {
        rc = mf__vk_readlink(vk, node.id, target, *length, &len);
        if (rc == 0 && len < *length)
            target[len] = 0;
        if (rc == 0 || rc == -ERANGE)
            *length = len;
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_truncate(struct mf_vkernel *vk, const char *path, uint64_t length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = reach(&w, vk, path, true, &node);

    if (rc == 0 && length > INT64_MAX)
        rc = -EINVAL;
    if (rc == 0 && !S_ISREG(node.attr.mode))
        rc = S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    if (rc == 0)
        rc = mf__vk_setsize(vk, node.id, length, false);
    return mf__vk_walk_end(&w, rc);
}

int mf_client_chmod(struct mf_vkernel *vk, const char *path, uint32_t mode)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = reach(&w, vk, path, true, &node);

    if (rc == 0) {
        struct fuse_setattr_in in = { .valid = FATTR_MODE, .mode = (node.attr.mode & S_IFMT) | (mode & 07777) };

        rc = mf__vk_setattr(vk, node.id, &in);
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_access(struct mf_vkernel *vk, const char *path, uint32_t mask)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = mask & ~7u ? -EINVAL : 0;

    if (rc < 0)
        return rc;
    rc = reach(&w, vk, path, true, &node);
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_ACCESS, .node = node.id };
        struct fuse_access_in in = { .mask = mask };

        mf__vk_add(&ask, &in, sizeof(in));
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_statfs(struct mf_vkernel *vk, struct mf_statfs *out)
{
    struct fuse_statfs_out got;
    struct mf__vk_ask ask = { .opcode = FUSE_STATFS, .node = MF_ROOT, .out = &got, .out_room = sizeof(got) };
    struct mf_statfs made = { .size = sizeof(made) };
    int rc = mf__vk_ask(vk, &ask);

    if (rc < 0)
        return rc;
    made.blocks = got.st.blocks;
    made.bfree = got.st.bfree;
    made.bavail = got.st.bavail;
    made.files = got.st.files;
    made.ffree = got.st.ffree;
    made.bsize = got.st.bsize;
    made.namelen = got.st.namelen;
    made.frsize = got.st.frsize;
    return mf__vk_copy_out(out, &made, sizeof(made));
}
