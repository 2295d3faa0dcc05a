/* SPDX-License-Identifier: MIT */
/* xattr.c - extended attributes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "store.h"

/* Where the pointer to it is: that of the last one, NULL, if there is none of that name. */
static struct xattr **locate(struct inode *i, const char *name)
{
    struct xattr **at = &i->xattrs;

    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

int store_setxattr(struct inode *i, const char *name, const void *value, size_t length, uint32_t flags)
{
    struct xattr **at = locate(i, name);
    struct xattr *x = *at;
    void *copy;

    if (x && flags & XATTR_CREATE)
        return -EEXIST;
    if (!x && flags & XATTR_REPLACE)
        return -ENODATA;
    if (length > MAX_XATTR)
        return -E2BIG;
    copy = malloc(length + 1); /* never of no length: NULL would mean failure */
    if (!copy)
        return -ENOMEM;
    if (!x) {
        x = calloc(1, sizeof(*x));
        if (!x || !(x->name = strdup(name))) {
            free(x);
            free(copy);
            return -ENOMEM;
        }
        *at = x;
    }
    free(x->value);
    memcpy(copy, value, length);
    x->value = copy;
    x->length = length;
    store_touch(i, false);
    return 0;
}

const struct xattr *store_getxattr(const struct inode *i, const char *name)
{
    const struct xattr *x = i->xattrs;

    while (x && strcmp(x->name, name) != 0)
        x = x->next;
    return x;
}

static void free_xattr(struct xattr *x)
{
    free(x->name);
    free(x->value);
    free(x);
}

int store_removexattr(struct inode *i, const char *name)
{
    struct xattr **at = locate(i, name);
    struct xattr *x = *at;

    if (!x)
        return -ENODATA;
    *at = x->next;
    free_xattr(x);
    store_touch(i, false);
    return 0;
}

void store_free_xattrs(struct inode *i)
{
    while (i->xattrs) {
        struct xattr *x = i->xattrs;

        i->xattrs = x->next;
        free_xattr(x);
    }
}
