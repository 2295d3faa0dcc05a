/* SPDX-License-Identifier: MIT */
/* extension.c - the records at the end of messages that make nodes: security contexts, groups. */
#include "wire/wire.h"

#include <string.h>

_Static_assert(sizeof(struct fuse_ext_header) == sizeof(struct fuse_secctx_header) &&
                   offsetof(struct fuse_ext_header, type) == offsetof(struct fuse_secctx_header, nr_secctx),
               "a record's type is the number of its contexts, or 32 and more");

struct record {
    const uint8_t *data; /* after the header */
    uint32_t len;
    uint32_t type;
};

/* The record at *at, which then lies behind it. 0, -ENOENT no more, -EPROTO. */
static int next_record(const struct mf__msg *msg, uint32_t *at, struct record *out)
{
    uint32_t room = msg->ext_len - *at;
    struct fuse_ext_header head;

    if (room == 0)
        return -ENOENT;
    if (room < sizeof(head))
        return -EPROTO;
    memcpy(&head, msg->ext + *at, sizeof(head));
    if (head.size < sizeof(head) || head.size > room || head.size % 8 != 0)
        return -EPROTO;
    out->data = msg->ext + *at + sizeof(head);
    out->len = head.size - (uint32_t)sizeof(head);
    out->type = head.type;
    *at += head.size;
    return 0;
}

/* The context at *p, which then lies behind it. */
static int next_secctx(const uint8_t **p, const uint8_t *end, struct mf__ext_secctx *out)
{
    struct fuse_secctx head;
    const uint8_t *nul;

    if ((size_t)(end - *p) < sizeof(head))
        return -EPROTO;
    memcpy(&head, *p, sizeof(head));
    *p += sizeof(head);
    nul = memchr(*p, 0, (size_t)(end - *p));
    if (!nul || head.size > (size_t)(end - nul - 1))
        return -EPROTO;
    out->name = (const char *)*p;
    out->value = nul + 1;
    out->value_len = head.size;
    *p = nul + 1 + head.size;
    return 0;
}

int mf__ext_secctx(const struct mf__msg *msg, uint32_t n, struct mf__ext_secctx *out)
{
    struct record rec;
    uint32_t at = 0;
    int rc;

    while ((rc = next_record(msg, &at, &rec)) == 0) {
        const uint8_t *p = rec.data;

        if (rec.type > FUSE_MAX_NR_SECCTX)
            continue;
        for (uint32_t i = 0; i < rec.type; i++) {
            rc = next_secctx(&p, rec.data + rec.len, out);
            if (rc < 0)
                return rc;
            if (n-- == 0)
                return 0;
        }
    }
    return rc;
}

int mf__ext_group(const struct mf__msg *msg, uint32_t n, uint32_t *gid)
{
    struct fuse_supp_groups groups;
    struct record rec;
    uint32_t at = 0;
    int rc;

    while ((rc = next_record(msg, &at, &rec)) == 0) {
        if (rec.type != FUSE_EXT_GROUPS)
            continue;
        if (rec.len < sizeof(groups))
            return -EPROTO;
        memcpy(&groups, rec.data, sizeof(groups));
        if (groups.nr_groups > (rec.len - sizeof(groups)) / sizeof(*gid))
            return -EPROTO;
        if (n < groups.nr_groups) {
            memcpy(gid, rec.data + sizeof(groups) + n * sizeof(*gid), sizeof(*gid));
            return 0;
        }
        n -= groups.nr_groups;
    }
    return rc;
}
