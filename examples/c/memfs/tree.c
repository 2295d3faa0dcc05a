/* SPDX-License-Identifier: MIT */
/* tree.c - inodes and names. */
#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "store.h"

/* ---- inodes -------------------------------------------------------------------------------------- */

void store_now(int64_t *seconds, uint32_t *nanoseconds)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    *seconds = ts.tv_sec;
    *nanoseconds = (uint32_t)ts.tv_nsec;
}

void store_touch(struct inode *i, bool mtime)
{
    store_now(&i->attr.ctime, &i->attr.ctimensec);
    if (mtime) {
        i->attr.mtime = i->attr.ctime;
        i->attr.mtimensec = i->attr.ctimensec;
    }
}

struct inode *store_inode(const struct store *st, uint64_t id)
{
    return id - MF_ROOT < st->inode_count ? st->inodes[id - MF_ROOT] : NULL;
}

/* A free place in the table of inodes. */
static int place(struct store *st, uint64_t *out)
{
    uint64_t i, count = st->inode_count;

    for (i = st->free_hint; i < count && st->inodes[i]; i++)
        ;
    if (i == count) {
        uint64_t more = count ? count * 2 : 64;
        struct inode **inodes = realloc(st->inodes, more * sizeof(*inodes));
        uint64_t *generations;

        if (!inodes)
            return -ENOMEM;
        st->inodes = inodes;
        generations = realloc(st->generations, more * sizeof(*generations));
        if (!generations)
            return -ENOMEM;
        st->generations = generations;
        memset(inodes + count, 0, (more - count) * sizeof(*inodes));
        memset(generations + count, 0, (more - count) * sizeof(*generations));
        st->inode_count = more;
    }
    st->free_hint = i + 1;
    *out = i;
    return 0;
}

int store_make(struct store *st, uint32_t mode, uint32_t uid, uint32_t gid, uint32_t rdev, struct inode **out)
{
    struct inode *i = calloc(1, sizeof(*i));
    uint64_t at;
    int rc = i ? place(st, &at) : -ENOMEM;

    if (rc < 0) {
        free(i);
        return rc;
    }
    st->inodes[at] = i;
    st->live++;
    i->id = at + MF_ROOT;
    i->generation = st->generations[at]++;
    i->next_cookie = 3; /* 1 and 2 are for "." and ".." */
    i->attr.mode = mode;
    i->attr.uid = uid;
    i->attr.gid = gid;
    i->attr.rdev = rdev;
    i->attr.blksize = 4096;
    store_touch(i, true);
    i->attr.atime = i->attr.ctime;
    i->attr.atimensec = i->attr.ctimensec;
    *out = i;
    return 0;
}

static void drop(struct store *st, struct inode *i)
{
    store_truncate(st, i, 0);
    store_free_xattrs(i);
    free(i->chunks);
    free(i->target);
    st->inodes[i->id - MF_ROOT] = NULL;
    if (st->free_hint > i->id - MF_ROOT)
        st->free_hint = i->id - MF_ROOT;
    st->live--;
    free(i);
}

void store_settle(struct store *st, struct inode *i)
{
    if (i->attr.nlink == 0 && i->lookups == 0)
        drop(st, i);
}

void store_forget(struct store *st, struct inode *i, uint64_t lookups)
{
    i->lookups -= lookups < i->lookups ? lookups : i->lookups;
    store_settle(st, i);
}

int store_init(struct store *st, uint64_t limit)
{
    struct inode *root;
    int rc;

    *st = (struct store){ .limit = limit, .bucket_count = 1024 };
    st->buckets = calloc(st->bucket_count, sizeof(*st->buckets));
    if (!st->buckets)
        return -ENOMEM;
    rc = store_make(st, S_IFDIR | 0755, 0, 0, 0, &root);
    if (rc < 0)
        return rc;
    root->attr.nlink = 2;
    root->parent = root;
    return 0;
}

void store_free(struct store *st)
{
    for (uint64_t n = 0; n < st->inode_count; n++) {
        struct inode *i = st->inodes[n];

        while (i && i->first) {
            struct name *name = i->first;

            i->first = name->next;
            free(name);
        }
    }
    for (uint64_t n = 0; n < st->inode_count; n++) {
        if (st->inodes[n])
            drop(st, st->inodes[n]);
    }
    free(st->inodes);
    free(st->generations);
    free(st->buckets);
}

/* ---- names --------------------------------------------------------------------------------------- */

static size_t hash(const struct inode *dir, const char *text)
{
    uint64_t h = dir->id * 0x9e3779b97f4a7c15ull;

    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
    return (size_t)(h ^ h >> 32);
}

struct name *store_find(const struct store *st, const struct inode *dir, const char *text)
{
    struct name *n = st->buckets[hash(dir, text) & (st->bucket_count - 1)];

    while (n && (n->dir != dir || strcmp(n->text, text) != 0))
        n = n->chain;
    return n;
}

static void more_buckets(struct store *st)
{
    size_t count = st->bucket_count * 2;
    struct name **buckets = calloc(count, sizeof(*buckets));

    if (!buckets)
        return; /* slower, and right */
    for (size_t b = 0; b < st->bucket_count; b++) {
        struct name *n, *next;

        for (n = st->buckets[b]; n; n = next) {
            struct name **to = &buckets[hash(n->dir, n->text) & (count - 1)];

            next = n->chain;
            n->chain = *to;
            *to = n;
        }
    }
    free(st->buckets);
    st->buckets = buckets;
    st->bucket_count = count;
}

static bool is_dir(const struct inode *i)
{
    return S_ISDIR(i->attr.mode);
}

/* Both ends know each other; times are the caller's. */
static void attach(struct store *st, struct name *n, struct inode *dir, struct inode *i)
{
    struct name **bucket;

    if (st->name_count++ >= st->bucket_count)
        more_buckets(st);
    bucket = &st->buckets[hash(dir, n->text) & (st->bucket_count - 1)];
    n->chain = *bucket;
    *bucket = n;
    n->dir = dir;
    n->inode = i;
    n->cookie = dir->next_cookie++;
    n->next = NULL;
    n->prev = dir->last;
    *(dir->last ? &dir->last->next : &dir->first) = n;
    dir->last = n;
    if (is_dir(i)) {
        i->parent = dir;
        i->attr.nlink = 2;
        for (struct name *sub = i->first; sub; sub = sub->next)
            i->attr.nlink += is_dir(sub->inode);
        dir->attr.nlink++;
    } else {
        i->attr.nlink++;
    }
}

static void detach(struct store *st, struct name *n)
{
    struct name **at = &st->buckets[hash(n->dir, n->text) & (st->bucket_count - 1)];

    while (*at != n)
        at = &(*at)->chain;
    *at = n->chain;
    st->name_count--;
    *(n->prev ? &n->prev->next : &n->dir->first) = n->next;
    *(n->next ? &n->next->prev : &n->dir->last) = n->prev;
    if (is_dir(n->inode)) {
        n->inode->attr.nlink = 0;
        n->dir->attr.nlink--;
    } else {
        n->inode->attr.nlink--;
    }
}

static int new_name(const char *text, struct name **out)
{
    size_t length = strlen(text);

    if (length > MAX_NAME)
        return -ENAMETOOLONG;
    *out = malloc(sizeof(**out) + length + 1);
    if (!*out)
        return -ENOMEM;
    (*out)->length = length;
    memcpy((*out)->text, text, length + 1);
    return 0;
}

int store_link(struct store *st, struct inode *dir, const char *text, struct inode *i)
{
    struct name *n;
    int rc;

    if (!is_dir(dir))
        return -ENOTDIR;
    if (dir->attr.nlink == 0)
        return -ENOENT; /* removed, and still somebody's working directory */
    if (store_find(st, dir, text))
        return -EEXIST;
    if (i->attr.nlink >= INT_MAX)
        return -EMLINK;
    rc = new_name(text, &n);
    if (rc < 0)
        return rc;
    attach(st, n, dir, i);
    store_touch(dir, true);
    store_touch(i, false);
    return 0;
}

/* May this name go, as a directory or as something else? */
static int removable(const struct name *n, bool want_dir)
{
    if (want_dir && !is_dir(n->inode))
        return -ENOTDIR;
    if (!want_dir && is_dir(n->inode))
        return -EISDIR;
    return want_dir && n->inode->first ? -ENOTEMPTY : 0;
}

static void erase(struct store *st, struct name *n)
{
    struct inode *i = n->inode;

    detach(st, n);
    store_touch(n->dir, true);
    store_touch(i, false);
    free(n);
    store_settle(st, i);
}

int store_unlink(struct store *st, struct inode *dir, const char *text, bool want_dir)
{
    struct name *n = store_find(st, dir, text);
    int rc = n ? removable(n, want_dir) : -ENOENT;

    if (rc == 0)
        erase(st, n);
    return rc;
}

static int exchange(struct store *st, struct name *a, struct name *b)
{
    struct inode *first = a->inode, *second = b->inode;
    struct inode *dir_a = a->dir, *dir_b = b->dir;

    detach(st, a);
    detach(st, b);
    attach(st, a, dir_a, second);
    attach(st, b, dir_b, first);
    store_touch(dir_a, true);
    store_touch(dir_b, true);
    store_touch(first, false);
    store_touch(second, false);
    return 0;
}

int store_rename(struct store *st, struct inode *from, const char *text, struct inode *to, const char *newtext,
                 uint32_t flags)
{
    struct name *old = store_find(st, from, text);
    struct name *target = store_find(st, to, newtext);
    struct name *fresh;
    struct inode *i;
    int rc;

    if (flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL;
    if (!old || (flags & RENAME_EXCHANGE && !target))
        return -ENOENT;
    if (to->attr.nlink == 0)
        return -ENOENT;
    if (flags & RENAME_NOREPLACE && target)
        return -EEXIST;
    if (target && target->inode == old->inode)
        return 0; /* two names of one file: nothing to do, says POSIX */
    if (flags & RENAME_EXCHANGE)
        return exchange(st, old, target);
    rc = new_name(newtext, &fresh);
    if (rc < 0)
        return rc;
    if (target) {
        rc = removable(target, is_dir(old->inode));
        if (rc < 0) {
            free(fresh);
            return rc;
        }
        erase(st, target);
    }
    i = old->inode;
    detach(st, old);
    free(old);
    attach(st, fresh, to, i);
    store_touch(from, true);
    store_touch(to, true);
    store_touch(i, false);
    return 0;
}
