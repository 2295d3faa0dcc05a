/* SPDX-License-Identifier: MIT */
/* xattr.c - extended attributes by path. */
#include <string.h>
#include <sys/stat.h>

#include "vkernel/vkernel.h"

#define MAX_NAME 255u
#define MAX_VALUE 65536u /* also of a list */
#define CREATE_OR_REPLACE 3u

/* What is refused before any name is looked up. */
static int check_name(const char *name)
{
    size_t len = name ? strlen(name) : 0;

    return len == 0 || len > MAX_NAME ? -ERANGE : 0;
}

static int reach(struct mf__vk_walk *w, struct mf_vkernel *vk, const char *path, struct mf__vk_ask *ask)
{
    struct mf__vk_node node;
    int rc = mf__vk_walk_begin(w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(w, path, true, &node);
    if (rc == 0)
        ask->node = node.id;
    return rc;
}

int mf_client_setxattr(struct mf_vkernel *vk, const char *path, const char *name, const void *value, uint64_t length,
                       uint32_t flags)
{
    struct fuse_setxattr_in in = { .size = (uint32_t)length, .flags = flags };
    struct mf__vk_ask ask = { .opcode = FUSE_SETXATTR };
    struct mf__vk_walk w;
    int rc = check_name(name);

    if (flags & ~CREATE_OR_REPLACE)
        return -EINVAL;
    if (rc == 0 && length > MAX_VALUE)
        rc = -E2BIG;
    if (rc < 0)
        return rc;
    rc = reach(&w, vk, path, &ask);
    if (rc == 0) {
        mf__vk_add(&ask, &in, mf__vk_flags(vk) & FUSE_SETXATTR_EXT ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE);
        mf__vk_add(&ask, name, strlen(name) + 1);
        mf__vk_add(&ask, value, (size_t)length);
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}

/* GETXATTR with a name, LISTXATTR without: the value, or where `length` is 0 its size. */
static int64_t get(struct mf_vkernel *vk, struct mf__vk_ask *ask, const char *name, void *buf, uint64_t length)
{
    struct fuse_getxattr_out size = { .size = 0 };
    struct fuse_getxattr_in in = { .size = length < MAX_VALUE ? (uint32_t)length : MAX_VALUE };
    int rc;

    mf__vk_add(ask, &in, sizeof(in));
    if (name)
        mf__vk_add(ask, name, strlen(name) + 1);
    ask->out = in.size ? buf : &size;
    ask->out_room = in.size ? in.size : sizeof(size);
    rc = mf__vk_ask(vk, ask);
    if (rc < 0)
        return rc;
    if (in.size)
        return (int64_t)ask->out_len;
    return size.size < MAX_VALUE ? size.size : MAX_VALUE;
}

int64_t mf_client_getxattr(struct mf_vkernel *vk, const char *path, const char *name, void *buf, uint64_t length)
{
    struct mf__vk_ask ask = { .opcode = FUSE_GETXATTR };
    struct mf__vk_walk w;
    int64_t n = check_name(name);
    int rc;

    if (n < 0)
        return n;
    rc = reach(&w, vk, path, &ask);
    n = rc < 0 ? rc : get(vk, &ask, name, buf, length);
    mf__vk_walk_end(&w, 0);
    return n;
}

/* Names that are not empty, each with its NUL. */
static bool list_ok(const char *list, uint64_t len)
{
    while (len > 0) {
        const char *end = memchr(list, 0, (size_t)len);

        if (!end || end == list)
            return false;
        len -= (uint64_t)(end - list) + 1;
        list = end + 1;
    }
    return true;
}

int64_t mf_client_listxattr(struct mf_vkernel *vk, const char *path, char *buf, uint64_t length)
{
    struct mf__vk_ask ask = { .opcode = FUSE_LISTXATTR };
    struct mf__vk_walk w;
    int rc = reach(&w, vk, path, &ask);
    int64_t n = rc < 0 ? rc : get(vk, &ask, NULL, buf, length);

    if (n > 0 && length > 0 && !list_ok(buf, (uint64_t)n))
        n = -EIO;
    mf__vk_walk_end(&w, 0);
    return n;
}

int mf_client_removexattr(struct mf_vkernel *vk, const char *path, const char *name)
{
    struct mf__vk_ask ask = { .opcode = FUSE_REMOVEXATTR };
    struct mf__vk_walk w;
    int rc = check_name(name);

    if (rc < 0)
        return rc;
    rc = reach(&w, vk, path, &ask);
    if (rc == 0) {
        mf__vk_add(&ask, name, strlen(name) + 1);
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}
