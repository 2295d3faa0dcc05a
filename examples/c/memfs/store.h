/* SPDX-License-Identifier: MIT */
/*
 * store.h - inodes, names, content and extended attributes of a filesystem in memory. Nothing here locks: the
 * caller holds the one lock of the store. Functions return 0 or a positive result, or -errno.
 */
#ifndef MEMFS_STORE_H
#define MEMFS_STORE_H

#include <manifuse/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CHUNK (64u << 10)
#define MAX_FILE (1ull << 40)
#define MAX_NAME 255u
#define MAX_XATTR (64u << 10)

struct inode;

/* A name in a directory. */
struct name {
    struct inode *dir;
    struct inode *inode;
    struct name *chain;       /* in the hash bucket */
    struct name *prev, *next; /* in the directory, in the order of `cookie` */
    uint64_t cookie;          /* never changes and never comes back: where a readdir goes on */
    size_t length;
    char text[];
};

struct xattr {
    struct xattr *next;
    char *name;
    void *value;
    size_t length;
};

struct inode {
    uint64_t id;         /* what the kernel calls it */
    uint64_t generation; /* tells it from those that had its id before */
    struct mf_attr attr;
    uint64_t lookups; /* references of the kernel; without any, and without a name, it goes */
    uint64_t opens;
    struct xattr *xattrs;
    /* directory */
    struct inode *parent;
    struct name *first, *last;
    uint64_t next_cookie;
    /* regular file: chunks that were never written are NULL and read as zeros */
    uint8_t **chunks;
    size_t chunk_count;
    /* symbolic link */
    char *target;
};

struct store {
    struct inode **inodes; /* by id - MF_ROOT; NULL = free */
    uint64_t *generations; /* of the next inode with that id */
    uint64_t inode_count;  /* ids that were ever used */
    uint64_t live;
    uint64_t free_hint; /* no free id below it */
    struct name **buckets;
    size_t bucket_count, name_count;
    uint64_t used, limit; /* bytes of content */
};

int store_init(struct store *st, uint64_t limit);
void store_free(struct store *st);

/* NULL: no such inode. */
struct inode *store_inode(const struct store *st, uint64_t id);
void store_now(int64_t *seconds, uint32_t *nanoseconds);
void store_touch(struct inode *i, bool mtime); /* ctime, and mtime where asked for */

/* A new inode without a name. */
int store_make(struct store *st, uint32_t mode, uint32_t uid, uint32_t gid, uint32_t rdev, struct inode **out);
/* Drop references of the kernel's. */
void store_forget(struct store *st, struct inode *i, uint64_t lookups);
/* Free it if nothing holds it. */
void store_settle(struct store *st, struct inode *i);

struct name *store_find(const struct store *st, const struct inode *dir, const char *text);
/* Link counts and times of both are kept right. -EEXIST, -ENAMETOOLONG, -ENOENT: the directory was removed. */
int store_link(struct store *st, struct inode *dir, const char *text, struct inode *i);
/* Take a name away; -ENOTEMPTY, and -ENOTDIR or -EISDIR if it is not what `want_dir` says. */
int store_unlink(struct store *st, struct inode *dir, const char *text, bool want_dir);
int store_rename(struct store *st, struct inode *from, const char *text, struct inode *to, const char *newtext,
                 uint32_t flags);

int64_t store_read(const struct inode *i, void *buf, uint64_t length, uint64_t offset);
int64_t store_write(struct store *st, struct inode *i, const void *data, uint64_t length, uint64_t offset);
int store_truncate(struct store *st, struct inode *i, uint64_t size);

int store_setxattr(struct inode *i, const char *name, const void *value, size_t length, uint32_t flags);
const struct xattr *store_getxattr(const struct inode *i, const char *name);
int store_removexattr(struct inode *i, const char *name);
void store_free_xattrs(struct inode *i);

#endif
