/* SPDX-License-Identifier: MIT */
/* index.c - nodes, names and the hash table that finds a name in a directory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "index.h"

/* Make room for one more element; 0 or -errno. */
static int grow(void **array, uint32_t count, uint32_t *room, size_t element)
{
    uint32_t more;
    void *p;

    if (count < *room)
        return 0;
    if (*room >= UINT32_MAX / 4)
        return -EOVERFLOW;
    more = *room ? *room * 2 : 1024;
    p = realloc(*array, more * element);
    if (!p)
        return -ENOMEM;
    *array = p;
    *room = more;
    return 0;
}

int index_add_text(struct archive *a, const char *text, size_t length, uint32_t *place)
{
    while (length + 1 > a->text_room - a->text_used) {
        int rc = grow((void **)&a->text, a->text_room, &a->text_room, 1);

        if (rc < 0)
            return rc;
    }
    *place = a->text_used;
    memcpy(a->text + a->text_used, text, length);
    a->text[a->text_used + length] = '\0';
    a->text_used += (uint32_t)length + 1;
    return 0;
}

int index_add_node(struct archive *a, const struct mf_attr *attr, uint32_t *node)
{
    int rc = grow((void **)&a->nodes, a->node_count, &a->node_room, sizeof(*a->nodes));

    if (rc < 0)
        return rc;
    *node = a->node_count++;
    a->nodes[*node] = (struct node){ .attr = *attr, .children = NONE, .last = NONE };
    return 0;
}

static uint32_t hash(uint32_t parent, const char *name, size_t length)
{
    uint32_t h = 2166136261u ^ parent;

    for (size_t i = 0; i < length; i++)
        h = (h ^ (unsigned char)name[i]) * 16777619u;
    return h ^ h >> 15;
}

uint32_t index_find(const struct archive *a, uint32_t parent, const char *name, size_t length)
{
    uint32_t i = a->buckets[hash(parent, name, length) & (a->bucket_count - 1)];

    for (; i != NONE; i = a->names[i].chain) {
        const struct name *n = &a->names[i];

        if (n->parent == parent && n->length == length && memcmp(a->text + n->text, name, length) == 0)
            break;
    }
    return i;
}

static void into_bucket(struct archive *a, uint32_t i)
{
    struct name *n = &a->names[i];
    uint32_t bucket = hash(n->parent, a->text + n->text, n->length) & (a->bucket_count - 1);

    n->chain = a->buckets[bucket];
    a->buckets[bucket] = i;
}

static int more_buckets(struct archive *a)
{
    uint32_t count = a->bucket_count ? a->bucket_count * 2 : 1024;
    uint32_t *p = realloc(a->buckets, count * sizeof(*p));

    if (!p)
        return -ENOMEM;
    a->buckets = p;
    a->bucket_count = count;
    memset(p, 0xff, count * sizeof(*p));
    for (uint32_t i = 0; i < a->name_count; i++)
        into_bucket(a, i);
    return 0;
}

static bool is_dir(const struct node *n)
{
    return S_ISDIR(n->attr.mode);
}

/* A member that was named before: as tar does when it extracts, the later one counts. */
static int replace(struct archive *a, struct name *n, uint32_t node)
{
    struct node *old = &a->nodes[n->node];
    struct node *new = &a->nodes[node];

    if (is_dir(old) && is_dir(new)) { /* what is in it stays */
        new->attr.nlink = old->attr.nlink;
        old->attr = new->attr;
        return 0;
    }
    if (is_dir(old) || is_dir(new))
        return -EEXIST;
    old->attr.nlink--;
    n->node = node;
    return 0;
}

int index_add_name(struct archive *a, uint32_t parent, const char *name, size_t length, uint32_t node)
{
    uint32_t found = index_find(a, parent, name, length);
    struct name *n;
    struct node *dir;
    int rc;

    if (found != NONE)
        return replace(a, &a->names[found], node);
    rc = grow((void **)&a->names, a->name_count, &a->name_room, sizeof(*a->names));
    if (rc == 0 && a->name_count >= a->bucket_count / 2)
        rc = more_buckets(a);
    if (rc < 0)
        return rc;
    n = &a->names[a->name_count];
    *n = (struct name){ .parent = parent, .node = node, .length = (uint32_t)length, .next = NONE };
    rc = index_add_text(a, name, length, &n->text);
    if (rc < 0)
        return rc;
    into_bucket(a, a->name_count);
    dir = &a->nodes[parent];
    if (dir->last == NONE)
        dir->children = a->name_count;
    else
        a->names[dir->last].next = a->name_count;
    dir->last = a->name_count++;
    if (is_dir(&a->nodes[node])) {
        a->nodes[node].parent = parent;
        dir->attr.nlink++;
    }
    return 0;
}

static int make_dir(struct archive *a, uint32_t parent, const char *name, size_t length, uint32_t *node)
{
    struct mf_attr attr = a->nodes[0].attr;
    int rc;

    attr.mode = S_IFDIR | 0755;
    attr.nlink = 2;
    rc = index_add_node(a, &attr, node);
    return rc < 0 ? rc : index_add_name(a, parent, name, length, *node);
}

int index_walk(struct archive *a, const char *path, bool make, uint32_t *node, const char **last, size_t *length)
{
    const char *part = NULL;
    size_t part_length = 0;
    uint32_t at = 0;

    for (;;) {
        const char *next = path + strspn(path, "/");
        size_t n = strcspn(next, "/");

        path = next + n;
        if (n == 1 && next[0] == '.')
            continue;
        if (part && (n > 0 || !make)) { /* one step down, by the part before */
            uint32_t found = index_find(a, at, part, part_length);

            if (found != NONE) {
                at = a->names[found].node;
            } else if (!make) {
                at = NONE;
                break;
            } else {
                int rc = make_dir(a, at, part, part_length, &at);

                if (rc < 0)
                    return rc;
            }
            if (n > 0 && !is_dir(&a->nodes[at]))
                return -ENOTDIR;
        }
        if (n == 0)
            break;
        if (n == 2 && next[0] == '.' && next[1] == '.')
            return -EINVAL;
        if (n > NAME_LIMIT)
            return -ENAMETOOLONG;
        part = next;
        part_length = n;
    }
    *node = at;
    if (last) {
        *last = part;
        *length = part_length;
    }
    return 0;
}

int index_init(struct archive *a)
{
    struct mf_attr root = { .mode = S_IFDIR | 0755, .nlink = 2 };
    uint32_t node;
    int rc = index_add_node(a, &root, &node);

    return rc < 0 ? rc : more_buckets(a);
}
