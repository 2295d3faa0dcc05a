/* SPDX-License-Identifier: MIT */
#include "wire_message.h"

#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

static void sync_header(struct wire *w)
{
    struct fuse_in_header hdr;

    memcpy(&hdr, w->bytes, sizeof(hdr));
    hdr.len = (uint32_t)w->len;
    hdr.total_extlen = (uint16_t)(w->ext_len / 8);
    memcpy(w->bytes, &hdr, sizeof(hdr));
}

void wire_start(struct wire *w, uint32_t opcode)
{
    struct fuse_in_header hdr = {
        .opcode = opcode, .unique = WIRE_UNIQUE, .nodeid = WIRE_NODE, .uid = WIRE_UID, .gid = WIRE_GID, .pid = WIRE_PID
    };

    memset(w, 0, sizeof(*w));
    memcpy(w->bytes, &hdr, sizeof(hdr));
    w->len = sizeof(hdr);
    sync_header(w);
}

void wire_header(struct wire *w, uint64_t unique, uint64_t node)
{
    struct fuse_in_header hdr;

    memcpy(&hdr, w->bytes, sizeof(hdr));
    hdr.unique = unique;
    hdr.nodeid = node;
    memcpy(w->bytes, &hdr, sizeof(hdr));
}

void wire_data(struct wire *w, const void *data, size_t len)
{
    if (len > sizeof(w->bytes) - w->len)
        abort();
    memcpy(w->bytes + w->len, data, len);
    w->len += len;
    sync_header(w);
}

void wire_args(struct wire *w, const void *args, size_t len)
{
    wire_data(w, args, len);
    w->args_len = len;
}

void wire_name(struct wire *w, const char *name)
{
    wire_data(w, name, strlen(name) + 1);
}

void wire_ext(struct wire *w, const void *ext, size_t len)
{
    w->ext_len += len;
    wire_data(w, ext, len);
}

uint8_t *wire_heap(const struct wire *w, size_t len, size_t shift)
{
    uint8_t *p = malloc(shift + len);
    uint32_t head_len = (uint32_t)len;

    memset(p, 0xee, shift);
    memcpy(p + shift, w->bytes, len);
    if (len >= sizeof(head_len))
        memcpy(p + shift, &head_len, sizeof(head_len));
    return p + shift;
}

void wire_free(uint8_t *message, size_t shift)
{
    free(message - shift);
}

void wire_ring(const struct wire *w, void **header, void **payload, size_t *payload_len)
{
    struct fuse_uring_req_header *h = malloc(sizeof(*h));
    struct fuse_in_header hdr;
    size_t args_len;

    memcpy(&hdr, w->bytes, sizeof(hdr));
    args_len = hdr.opcode == FUSE_NOTIFY_REPLY ? 0 : w->args_len;
    memset(h, 0xdd, sizeof(*h)); /* what the last request left */
    memcpy(h->in_out, &hdr, sizeof(hdr));
    memcpy(h->op_in, w->bytes + sizeof(hdr), args_len);
    *payload_len = w->len - sizeof(hdr) - args_len;
    h->ring_ent_in_out.payload_sz = (uint32_t)*payload_len;
    *header = h;
    *payload = malloc(*payload_len ? *payload_len : 1);
    memcpy(*payload, w->bytes + sizeof(hdr) + args_len, *payload_len);
}

/* ---- samples ----------------------------------------------------------------------------------------- */

/* No two bytes next to each other alike, no zero, and another pattern than the header's. */
static void fill(struct wire *w, uint32_t opcode, size_t args_len)
{
    uint8_t args[FUSE_URING_OP_IN_OUT_SZ];

    wire_start(w, opcode);
    for (size_t i = 0; i < args_len; i++)
        args[i] = (uint8_t)(0x31 + i * 7 % 0x80);
    wire_args(w, args, args_len);
}

/* The 32 bits at `at` of the fixed structure: a length, a count, flags. */
static void set32(struct wire *w, size_t at, uint32_t value)
{
    memcpy(w->bytes + sizeof(struct fuse_in_header) + at, &value, sizeof(value));
}

static void set64(struct wire *w, size_t at, uint64_t value)
{
    memcpy(w->bytes + sizeof(struct fuse_in_header) + at, &value, sizeof(value));
}

static void add_data(struct wire *w, uint32_t opcode)
{
    static const char data[48] = "forty-eight bytes: three records of sixteen";

    switch (opcode) {
    case FUSE_WRITE: set32(w, offsetof(struct fuse_write_in, size), sizeof(data)); break;
    case FUSE_IOCTL: set32(w, offsetof(struct fuse_ioctl_in, in_size), sizeof(data)); break;
    case FUSE_NOTIFY_REPLY: set32(w, offsetof(struct fuse_notify_retrieve_in, size), sizeof(data)); break;
    case FUSE_BATCH_FORGET: set32(w, offsetof(struct fuse_batch_forget_in, count), 3); break;
    case FUSE_REMOVEMAPPING: set32(w, offsetof(struct fuse_removemapping_in, count), 3); break;
    case FUSE_SETXATTR: set32(w, offsetof(struct fuse_setxattr_in, size), sizeof(data)); break;
    default: return;
    }
    wire_data(w, data, sizeof(data));
}

bool wire_sample(struct wire *w, uint32_t opcode)
{
    const struct mf__opcode *row = mf__opcode(opcode);

    if (!row->known)
        return false;
    fill(w, opcode, row->args_size);
    for (int i = 0; i < row->names; i++)
        wire_name(w, i == 0 ? "first" : "second name");
    add_data(w, opcode);
    if (opcode == FUSE_COPY_FILE_RANGE || opcode == FUSE_COPY_FILE_RANGE_64)
        set64(w, offsetof(struct fuse_copy_file_range_in, flags), 5);
    if (opcode == FUSE_SETUPMAPPING)
        set64(w, offsetof(struct fuse_setupmapping_in, flags), FUSE_SETUPMAPPING_FLAG_READ);
    if (opcode == FUSE_GETATTR)
        set32(w, offsetof(struct fuse_getattr_in, getattr_flags), FUSE_GETATTR_FH);
    if (opcode == FUSE_SETATTR)
        set32(w, offsetof(struct fuse_setattr_in, valid), 0xfff);
    if (opcode == FUSE_STATX)
        set32(w, offsetof(struct fuse_statx_in, getattr_flags), FUSE_GETATTR_FH);
    return true;
}
