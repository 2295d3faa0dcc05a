/* SPDX-License-Identifier: MIT */
/*
 * memfs MOUNTPOINT [options]: a filesystem in memory that does everything: files, directories, links, special
 * files, extended attributes, renames of every kind, files that are open and have no name any more.
 *
 * One lock guards the store (memfs/); an answer is sent after it was released. An answer that brings an inode to
 * the kernel counts as one reference, which forget gives back; so the reference is taken before the answer is
 * sent, and given back here if the answer did not arrive.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "memfs/store.h"
#include "serve.h"

#define KEEP MF_SECOND
#define LIMIT (2ull << 30)

struct memfs {
    pthread_mutex_t lock;
    struct store store;
};

static void lock(struct memfs *m)
{
    pthread_mutex_lock(&m->lock);
}

static void unlock(struct memfs *m)
{
    pthread_mutex_unlock(&m->lock);
}

/* Fill an entry and take the kernel's reference. */
static void hand_out(struct inode *i, struct mf_entry *e)
{
    i->lookups++;
    *e = (struct mf_entry){
        .size = sizeof(*e),
        .node = i->id,
        .generation = i->generation,
        .entry_timeout_ns = KEEP,
        .attr_timeout_ns = KEEP,
        .attr = i->attr,
    };
}

static void take_back(struct memfs *m, uint64_t node)
{
    lock(m);
    store_forget(&m->store, store_inode(&m->store, node), 1);
    unlock(m);
}

static void reply_entry(struct memfs *m, struct mf_req *req, int rc, const struct mf_entry *e)
{
    if (rc < 0)
        mf_reply_err(req, -rc);
    else if (mf_reply_entry(req, e) < 0)
        take_back(m, e->node);
}

/* ---- names --------------------------------------------------------------------------------------- */

static void memfs_lookup(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    struct memfs *m = user;
    struct inode *dir;
    struct mf_entry e;
    int rc = -ENOENT;

    lock(m);
    dir = store_inode(&m->store, parent);
    if (strlen(name) > MAX_NAME) {
        rc = -ENAMETOOLONG;
    } else if (dir) {
        struct name *n = store_find(&m->store, dir, name);

        if (n) {
            hand_out(n->inode, &e);
            rc = 0;
        }
    }
    unlock(m);
    reply_entry(m, req, rc, &e);
}

static void memfs_forget(struct mf_req *req, const struct mf_forget *items, uint64_t count, void *user)
{
    struct memfs *m = user;

    lock(m);
    for (uint64_t n = 0; n < count; n++) {
        struct inode *i = store_inode(&m->store, items[n].node);

        if (i)
            store_forget(&m->store, i, items[n].nlookup);
    }
    unlock(m);
}

/* Make an inode and name it. `target` for symbolic links. The lock is held. */
static int make(struct memfs *m, struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev,
                const char *target, struct mf_entry *e)
{
    const struct mf_call *call = mf_req_call(req);
    struct inode *dir = store_inode(&m->store, parent);
    uint32_t gid = call->gid;
    struct inode *i;
    int rc;

    if (!dir)
        return -ENOENT;
    if (dir->attr.mode & S_ISGID) { /* the directory's group, and directories pass that on */
        gid = dir->attr.gid;
        if (S_ISDIR(mode))
            mode |= S_ISGID;
    }
    rc = store_make(&m->store, mode, call->uid, gid, rdev, &i);
    if (rc < 0)
        return rc;
    if (target) {
        i->target = strdup(target);
        i->attr.size = strlen(target);
        if (!i->target)
            rc = -ENOMEM;
    }
    if (rc == 0)
        rc = store_link(&m->store, dir, name, i);
    if (rc < 0)
        store_settle(&m->store, i);
    else
        hand_out(i, e);
    return rc;
}

static void make_and_reply(struct memfs *m, struct mf_req *req, uint64_t parent, const char *name, uint32_t mode,
                           uint32_t rdev, const char *target)
{
    struct mf_entry e;
    int rc;

    lock(m);
    rc = make(m, req, parent, name, mode, rdev, target, &e);
    unlock(m);
    reply_entry(m, req, rc, &e);
}

static void memfs_mknod(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev, void *user)
{
    make_and_reply(user, req, parent, name, mode, rdev, NULL);
}

static void memfs_mkdir(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, void *user)
{
    make_and_reply(user, req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void memfs_symlink(struct mf_req *req, uint64_t parent, const char *name, const char *target, void *user)
{
    make_and_reply(user, req, parent, name, S_IFLNK | 0777, 0, target);
}

static void memfs_create(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t flags,
                         void *user)
{
    struct mf_open open = { .size = sizeof(open), .flags = MF_OPEN_KEEP_CACHE };
    struct memfs *m = user;
    struct mf_entry e;
    int rc;

    lock(m);
    rc = make(m, req, parent, name, S_IFREG | (mode & 07777), 0, NULL, &e);
    if (rc == 0) {
        open.fh = e.node;
        store_inode(&m->store, e.node)->opens++;
    }
    unlock(m);
    if (rc < 0) {
        mf_reply_err(req, -rc);
    } else if (mf_reply_create(req, &e, &open) < 0) {
        lock(m);
        store_inode(&m->store, e.node)->opens--;
        unlock(m);
        take_back(m, e.node);
    }
}

static void memfs_link(struct mf_req *req, uint64_t node, uint64_t newparent, const char *newname, void *user)
{
    struct memfs *m = user;
    struct inode *i, *dir;
    struct mf_entry e;
    int rc = -ENOENT;

    lock(m);
    i = store_inode(&m->store, node);
    dir = store_inode(&m->store, newparent);
    if (i && dir && i->attr.nlink > 0) /* an inode without a name does not get one again */
        rc = S_ISDIR(i->attr.mode) ? -EPERM : store_link(&m->store, dir, newname, i);
    if (rc == 0)
        hand_out(i, &e);
    unlock(m);
    reply_entry(m, req, rc, &e);
}

static void remove_name(struct memfs *m, struct mf_req *req, uint64_t parent, const char *name, bool want_dir)
{
    struct inode *dir;
    int rc;

    lock(m);
    dir = store_inode(&m->store, parent);
    rc = dir ? store_unlink(&m->store, dir, name, want_dir) : -ENOENT;
    unlock(m);
    mf_reply_err(req, -rc);
}

static void memfs_unlink(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    remove_name(user, req, parent, name, false);
}

static void memfs_rmdir(struct mf_req *req, uint64_t parent, const char *name, void *user)
{
    remove_name(user, req, parent, name, true);
}

static void memfs_rename(struct mf_req *req, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
                         uint32_t flags, void *user)
{
    struct memfs *m = user;
    struct inode *from, *to;
    int rc;

    lock(m);
    from = store_inode(&m->store, parent);
    to = store_inode(&m->store, newparent);
    rc = from && to ? store_rename(&m->store, from, name, to, newname, flags) : -ENOENT;
    unlock(m);
    mf_reply_err(req, -rc);
}

static void memfs_readlink(struct mf_req *req, uint64_t node, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    const char *target;

    lock(m);
    i = store_inode(&m->store, node);
    target = i ? i->target : NULL; /* it never changes while the kernel holds the inode */
    unlock(m);
    if (target)
        mf_reply_data(req, target, strlen(target));
    else
        mf_reply_err(req, EINVAL);
}

/* ---- attributes ---------------------------------------------------------------------------------- */

static void memfs_getattr(struct mf_req *req, uint64_t node, uint64_t fh, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    struct mf_attr attr;

    lock(m);
    i = store_inode(&m->store, node);
    if (i)
        attr = i->attr;
    unlock(m);
    if (i)
        mf_reply_attr(req, &attr, KEEP);
    else
        mf_reply_err(req, ESTALE);
}

static void set_times(struct inode *i, uint32_t valid, const struct mf_attr *want)
{
    if (valid & MF_SET_ATIME_NOW) {
        store_now(&i->attr.atime, &i->attr.atimensec);
    } else if (valid & MF_SET_ATIME) {
        i->attr.atime = want->atime;
        i->attr.atimensec = want->atimensec;
    }
    if (valid & MF_SET_MTIME_NOW) {
        store_now(&i->attr.mtime, &i->attr.mtimensec);
    } else if (valid & MF_SET_MTIME) {
        i->attr.mtime = want->mtime;
        i->attr.mtimensec = want->mtimensec;
    }
}

static int set_attributes(struct memfs *m, struct inode *i, uint32_t valid, const struct mf_attr *want)
{
    if (valid & MF_SET_SIZE) {
        int rc = S_ISREG(i->attr.mode) ? store_truncate(&m->store, i, want->size) : -EINVAL;

        if (rc < 0)
            return rc;
        store_touch(i, true);
    }
    if (valid & MF_SET_MODE)
        i->attr.mode = (i->attr.mode & S_IFMT) | (want->mode & 07777);
    if (valid & MF_SET_UID)
        i->attr.uid = want->uid;
    if (valid & MF_SET_GID)
        i->attr.gid = want->gid;
    if (valid & MF_SET_KILL_SUIDGID) {
        i->attr.mode &= ~(uint32_t)S_ISUID;
        if (i->attr.mode & S_IXGRP)
            i->attr.mode &= ~(uint32_t)S_ISGID;
    }
    set_times(i, valid, want);
    store_touch(i, false);
    if (valid & MF_SET_CTIME) {
        i->attr.ctime = want->ctime;
        i->attr.ctimensec = want->ctimensec;
    }
    return 0;
}

static void memfs_setattr(struct mf_req *req, uint64_t node, const struct mf_setattr_in *in, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    struct mf_attr attr;
    int rc = -ESTALE;

    lock(m);
    i = store_inode(&m->store, node);
    if (i) {
        rc = set_attributes(m, i, in->valid, &in->attr);
        attr = i->attr;
    }
    unlock(m);
    if (rc < 0)
        mf_reply_err(req, -rc);
    else
        mf_reply_attr(req, &attr, KEEP);
}

/* Asked only where the mount lacks default_permissions; supplementary groups are not known here. */
static void memfs_access(struct mf_req *req, uint64_t node, uint32_t mask, void *user)
{
    const struct mf_call *call = mf_req_call(req);
    struct memfs *m = user;
    struct inode *i;
    uint32_t have = 0;

    lock(m);
    i = store_inode(&m->store, node);
    if (i)
        have = call->uid == i->attr.uid   ? i->attr.mode >> 6
               : call->gid == i->attr.gid ? i->attr.mode >> 3
                                          : i->attr.mode;
    if (i && call->uid == 0)
        have = 6 | (S_ISDIR(i->attr.mode) || i->attr.mode & 0111 ? 1 : 0);
    unlock(m);
    mf_reply_err(req, !i ? ESTALE : (mask & ~have & 7) ? EACCES : 0);
}

static void memfs_statfs(struct mf_req *req, uint64_t node, void *user)
{
    struct memfs *m = user;
    struct mf_statfs st = { .size = sizeof(st), .bsize = 4096, .frsize = 4096, .namelen = MAX_NAME };

    lock(m);
    st.blocks = m->store.limit / 4096;
    st.bfree = st.bavail = (m->store.limit - m->store.used) / 4096;
    st.files = UINT32_MAX;
    st.ffree = st.files - m->store.live;
    unlock(m);
    mf_reply_statfs(req, &st);
}

/* ---- open files ---------------------------------------------------------------------------------- */

static void memfs_open(struct mf_req *req, uint64_t node, uint32_t flags, void *user)
{
    struct mf_open open = { .size = sizeof(open), .flags = MF_OPEN_KEEP_CACHE, .fh = node };
    struct memfs *m = user;
    struct inode *i;

    lock(m);
    i = store_inode(&m->store, node);
    if (i) {
        i->opens++;
        if (flags & O_TRUNC && S_ISREG(i->attr.mode)) {
            store_truncate(&m->store, i, 0);
            store_touch(i, true);
        }
    }
    unlock(m);
    if (!i) {
        mf_reply_err(req, ESTALE);
    } else if (mf_reply_open(req, &open) < 0) {
        lock(m);
        i->opens--;
        unlock(m);
    }
}

static void memfs_release(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user)
{
    struct memfs *m = user;
    struct inode *i;

    lock(m);
    i = store_inode(&m->store, node);
    if (i && in->fh == node)
        i->opens--;
    unlock(m);
    mf_reply_err(req, i && in->fh == node ? 0 : EBADF);
}

static void memfs_read(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    uint64_t room = 0;
    void *buf = mf_req_buffer(req, &room);
    int64_t n = -EBADF;

    lock(m);
    i = store_inode(&m->store, node);
    if (i && S_ISREG(i->attr.mode))
        n = store_read(i, buf, in->length < room ? in->length : room, in->offset);
    unlock(m);
    if (n < 0)
        mf_reply_err(req, (int)-n);
    else
        mf_reply_buffer(req, (uint64_t)n);
}

static void memfs_write(struct mf_req *req, uint64_t node, const struct mf_write_in *in, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    int64_t n = -EBADF;

    lock(m);
    i = store_inode(&m->store, node);
    if (i && S_ISREG(i->attr.mode))
        n = store_write(&m->store, i, in->data, in->length, in->offset);
    unlock(m);
    if (n < 0)
        mf_reply_err(req, (int)-n);
    else
        mf_reply_write(req, (uint64_t)n);
}

/* What was written is in memory as soon as write has answered. */
static void memfs_flush(struct mf_req *req, uint64_t node, uint64_t fh, uint64_t lock_owner, void *user)
{
    mf_reply_err(req, 0);
}

static void memfs_fsync(struct mf_req *req, uint64_t node, uint64_t fh, uint32_t datasync, void *user)
{
    mf_reply_err(req, 0);
}

static void memfs_readdir(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user)
{
    struct memfs *m = user;
    uint64_t at = in->offset;
    struct inode *dir;

    lock(m);
    dir = store_inode(&m->store, node);
    if (dir && S_ISDIR(dir->attr.mode)) {
        bool room = true;

        if (at == 0)
            room = mf_dirent_add(req, ".", 1, dir->id, S_IFDIR, 1) == 0;
        if (at <= 1 && room)
            room = mf_dirent_add(req, "..", 2, dir->parent->id, S_IFDIR, 2) == 0;
        for (struct name *n = dir->first; n && room; n = n->next) {
            if (n->cookie > at)
                room = mf_dirent_add(req, n->text, n->length, n->inode->id, n->inode->attr.mode & S_IFMT, n->cookie) ==
                       0;
        }
    }
    unlock(m);
    mf_reply_dirents(req);
}

/* ---- extended attributes ------------------------------------------------------------------------- */

/* Access lists would have to be enforced; everything else is only kept. */
static bool refused(const char *name)
{
    return strncmp(name, "system.", 7) == 0;
}

static void memfs_setxattr(struct mf_req *req, uint64_t node, const char *name, const void *value, uint64_t length,
                           uint32_t flags, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    int rc = -EOPNOTSUPP;

    if (!refused(name)) {
        lock(m);
        i = store_inode(&m->store, node);
        rc = i ? store_setxattr(i, name, value, length, flags) : -ESTALE;
        unlock(m);
    }
    mf_reply_err(req, -rc);
}

/* Bytes that are in the request's buffer, or how many there would be. */
static void reply_value(struct mf_req *req, uint64_t asked, int64_t n)
{
    if (n < 0)
        mf_reply_err(req, (int)-n);
    else if (asked == 0)
        mf_reply_xattr_size(req, (uint64_t)n);
    else
        mf_reply_buffer(req, (uint64_t)n);
}

static void memfs_getxattr(struct mf_req *req, uint64_t node, const char *name, uint64_t length, void *user)
{
    struct memfs *m = user;
    const struct xattr *x;
    struct inode *i;
    uint64_t room = 0;
    void *buf = mf_req_buffer(req, &room);
    int64_t n = refused(name) ? -EOPNOTSUPP : -ENODATA;

    lock(m);
    i = store_inode(&m->store, node);
    x = i ? store_getxattr(i, name) : NULL;
    if (x) {
        n = (int64_t)x->length;
        if (length > 0 && (x->length > length || x->length > room))
            n = -ERANGE;
        else if (length > 0)
            memcpy(buf, x->value, x->length);
    }
    unlock(m);
    reply_value(req, length, n);
}

static void memfs_listxattr(struct mf_req *req, uint64_t node, uint64_t length, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    uint64_t room = 0;
    char *buf = mf_req_buffer(req, &room);
    int64_t n = 0;

    lock(m);
    i = store_inode(&m->store, node);
    for (const struct xattr *x = i ? i->xattrs : NULL; x && n >= 0; x = x->next) {
        size_t size = strlen(x->name) + 1;

        if (length > 0 && ((uint64_t)n + size > length || (uint64_t)n + size > room)) {
            n = -ERANGE;
            break;
        }
        if (length > 0)
            memcpy(buf + n, x->name, size);
        n += (int64_t)size;
    }
    unlock(m);
    reply_value(req, length, n);
}

static void memfs_removexattr(struct mf_req *req, uint64_t node, const char *name, void *user)
{
    struct memfs *m = user;
    struct inode *i;
    int rc;

    lock(m);
    i = store_inode(&m->store, node);
    rc = i ? store_removexattr(i, name) : -ESTALE;
    unlock(m);
    mf_reply_err(req, -rc);
}

static const struct mf_ops ops = {
    .size = sizeof(ops),
    .lookup = memfs_lookup,
    .forget = memfs_forget,
    .getattr = memfs_getattr,
    .setattr = memfs_setattr,
    .readlink = memfs_readlink,
    .symlink = memfs_symlink,
    .mknod = memfs_mknod,
    .mkdir = memfs_mkdir,
    .unlink = memfs_unlink,
    .rmdir = memfs_rmdir,
    .rename = memfs_rename,
    .link = memfs_link,
    .open = memfs_open,
    .create = memfs_create,
    .read = memfs_read,
    .write = memfs_write,
    .flush = memfs_flush,
    .release = memfs_release,
    .fsync = memfs_fsync,
    .opendir = memfs_open,
    .readdir = memfs_readdir,
    .releasedir = memfs_release,
    .fsyncdir = memfs_fsync,
    .statfs = memfs_statfs,
    .access = memfs_access,
    .setxattr = memfs_setxattr,
    .getxattr = memfs_getxattr,
    .listxattr = memfs_listxattr,
    .removexattr = memfs_removexattr,
};

int main(int argc, char **argv)
{
    struct memfs m = { .lock = PTHREAD_MUTEX_INITIALIZER };
    struct mf_cmdline line;
    struct inode *root;
    char options[sizeof(line.options) + 24];
    int status = 1;

    parse_command_line(argc, argv, 0, &line);
    /* The kernel knows the callers' groups, so it had better judge who may do what. */
    snprintf(options, sizeof(options), "default_permissions%s%s", line.opts.mount_options ? "," : "",
             line.opts.mount_options ? line.opts.mount_options : "");
    line.opts.mount_options = options;
    line.opts.fsname = line.opts.subtype = "memfs";
    if (store_init(&m.store, LIMIT) < 0) {
        fprintf(stderr, "memfs: no memory\n");
    } else {
        root = store_inode(&m.store, MF_ROOT);
        root->attr.uid = getuid();
        root->attr.gid = getgid();
        status = serve(&line, &ops, &m);
    }
    store_free(&m.store);
    return status;
}
