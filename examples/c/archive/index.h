/* SPDX-License-Identifier: MIT */
/*
 * index.h - the names and attributes of an archive in memory. Built once, then only read: no locks. Node ids
 * are MF_ROOT plus the place in `nodes`.
 */
#ifndef ARCHIVE_INDEX_H
#define ARCHIVE_INDEX_H

#include <manifuse/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NONE UINT32_MAX
#define NAME_LIMIT 255u

struct node {
    struct mf_attr attr;
    uint64_t data;     /* offset of the content in the archive */
    uint32_t target;   /* symbolic link: place of the target in `text`; its length is attr.size */
    uint32_t children; /* directory: its first name, NONE = empty */
    uint32_t last;     /* directory: its last name */
    uint32_t parent;   /* directory: the node above */
};

/* A name in a directory. Several may stand for one node: hard links. */
struct name {
    uint32_t parent; /* node of the directory */
    uint32_t node;
    uint32_t text; /* place in `text` */
    uint32_t length;
    uint32_t next;  /* in the directory */
    uint32_t chain; /* in the bucket */
};

struct archive {
    int fd;
    uint64_t size;
    struct node *nodes;
    struct name *names;
    uint32_t *buckets; /* a power of two of them */
    char *text;        /* names and link targets, each with its NUL */
    uint32_t node_count, node_room;
    uint32_t name_count, name_room;
    uint32_t bucket_count;
    uint32_t text_used, text_room;
    uint64_t bytes;   /* sum of the files' sizes */
    uint32_t skipped; /* members that are not served */
};

/* Read the index of a .tar. 0, or -errno after a line on standard error. */
int archive_open(struct archive *a, const char *path);
void archive_close(struct archive *a);

/* An empty tree: the root. */
int index_init(struct archive *a);

/* NONE if there is no such name. */
uint32_t index_find(const struct archive *a, uint32_t parent, const char *name, size_t length);

/*
 * The node at a path, whatever dots and slashes are in it; NONE if there is none. With `make`, directories
 * that are missing on the way are made, and the path's last part is given back instead of being looked up: then
 * the result is its directory. -errno; a path with ".." in it is -EINVAL.
 */
int index_walk(struct archive *a, const char *path, bool make, uint32_t *node, const char **last, size_t *length);

int index_add_node(struct archive *a, const struct mf_attr *attr, uint32_t *node);

/* Give a node a name. The name of a later member takes the place of an earlier one. */
int index_add_name(struct archive *a, uint32_t parent, const char *name, size_t length, uint32_t node);

/* Keep a string: its place in `text`. */
int index_add_text(struct archive *a, const char *text, size_t length, uint32_t *place);

#endif
