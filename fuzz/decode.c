/* SPDX-License-Identifier: MIT */
/*
 * decode.c - any bytes as a message from the device and as an entry of a ring.
 *
 * The input's first four bytes steer: options, how far the message lies from an aligned place, and where a ring's
 * payload begins. All else is the message, in memory that ends with it, so that the address sanitizer sees each
 * read past its end.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

#define HEAD sizeof(struct fuse_in_header)
#define CONTROL 4u

#define OPT_SETXATTR_EXT 0x1u
#define OPT_FIX_LEN 0x2u /* the header's len becomes the true one */
#define OPT_FLAGS 0x4u   /* all other INIT flags are in force */

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* so that reading everything is not optimised away */

static void touch(const void *p, uint64_t len)
{
    const uint8_t *b = p;

    for (uint64_t i = 0; i < len; i++)
        sink += b[i];
}

static bool inside(const void *p, uint64_t len, const void *area, uint64_t area_len)
{
    uintptr_t from = (uintptr_t)p, start = (uintptr_t)area;

    return from >= start && from - start <= area_len && len <= area_len - (from - start);
}

/* The structure and the body are where data and names may lie: one piece on the device, two in a ring. */
static bool in_message(const struct mf__msg *msg, const void *p, uint64_t len)
{
    return inside(p, len, msg->body, msg->body_len) ||
           (msg->body == msg->args + msg->args_len && inside(p, len, msg->args, msg->args_len + msg->body_len));
}

static void check_name(const struct mf__msg *msg, const char *name, uint32_t len, bool plain)
{
    CHECK(in_message(msg, name, len + 1ull));
    CHECK(strlen(name) == len && len > 0);
    CHECK(!plain || !strchr(name, '/'));
}

static bool is_xattr(uint32_t opcode)
{
    return opcode == FUSE_SETXATTR || opcode == FUSE_GETXATTR || opcode == FUSE_REMOVEXATTR;
}

static void check_data(const struct mf__msg *msg, const struct mf_call *call, const struct mf_forget *one)
{
    uint32_t opcode = msg->hdr.opcode;
    uint64_t unit = 1;

    if (call->data == one) {
        CHECK(opcode == FUSE_FORGET && call->length == 1 && one->node == msg->hdr.nodeid);
        return;
    }
    if (opcode == FUSE_BATCH_FORGET || opcode == FUSE_REMOVEMAPPING)
        unit = sizeof(struct fuse_forget_one);
    CHECK(call->length <= msg->body_len + msg->args_len);
    CHECK(in_message(msg, call->data, call->length * unit));
    touch(call->data, call->length * unit);
}

static void check_call(const struct mf__msg *msg, const struct mf_call *call, const struct mf_forget *one)
{
    uint32_t opcode = msg->hdr.opcode;
    const struct mf__opcode *row = mf__opcode(opcode);
    bool placeholder = opcode == FUSE_TMPFILE;

    CHECK(row->known && call->op == row->slot && call->size == sizeof(*call));
    CHECK(call->unique == msg->hdr.unique && call->uid == msg->hdr.uid);
    CHECK(call->again == msg->hdr.unique >> 63);
    CHECK((call->name != NULL) + (call->name2 != NULL) == row->names);
    if (call->name && !placeholder)
        check_name(msg, call->name, call->name_len, !is_xattr(opcode));
    if (call->name2)
        check_name(msg, call->name2, call->name2_len, opcode != FUSE_SYMLINK);
    if (call->data)
        check_data(msg, call, one);
}

static void decode(const struct mf__msg *msg, uint64_t flags)
{
    struct mf_forget one;
    struct mf_call call;
    int rc;

    memset(&call, 0x5a, sizeof(call));
    rc = mf__decode(msg, flags, &call, &one);
    for (size_t i = offsetof(struct mf_call, buf); i < sizeof(call); i++)
        CHECK(((uint8_t *)&call)[i] == 0x5a);
    CHECK(rc == 0 || rc == -EPROTO || rc == -ENOSYS);
    CHECK((rc == -ENOSYS) == !mf__opcode(msg->hdr.opcode)->known);
    if (rc == 0)
        check_call(msg, &call, &one);
}

static void session_messages(const struct mf__msg *msg)
{
    struct fuse_init_in init;
    uint64_t unique;
    int rc = mf__decode_init(msg, &init);

    CHECK(rc == 0 ? msg->hdr.opcode == FUSE_INIT : rc == -EPROTO);
    if (rc == 0)
        touch(&init, sizeof(init));
    rc = mf__decode_interrupt(msg, &unique);
    CHECK(rc == 0 ? msg->hdr.opcode == FUSE_INTERRUPT : rc == -EPROTO);
}

/* There are never more answers than the area has room for, and asking in order ends with an error. */
static void extensions(const struct mf__msg *msg)
{
    struct mf__ext_secctx ctx;
    uint32_t gid, n;
    int rc;

    for (n = 0; (rc = mf__ext_secctx(msg, n, &ctx)) == 0 && n < 4096; n++) {
        CHECK(inside(ctx.name, strlen(ctx.name) + 1, msg->ext, msg->ext_len));
        CHECK(inside(ctx.value, ctx.value_len, msg->ext, msg->ext_len));
        touch(ctx.value, ctx.value_len);
    }
    CHECK(n <= msg->ext_len / 9 && (rc == 0 || rc == -ENOENT || rc == -EPROTO));
    for (n = 0; (rc = mf__ext_group(msg, n, &gid)) == 0 && n < 4096; n++)
        sink += gid;
    CHECK(n <= msg->ext_len / 4 && (rc == 0 || rc == -ENOENT || rc == -EPROTO));
    mf__ext_secctx(msg, UINT32_MAX, &ctx);
    mf__ext_group(msg, UINT32_MAX, &gid);
}

static void everything(const struct mf__msg *msg, uint64_t flags)
{
    touch(msg->args, msg->args_len);
    touch(msg->body, msg->body_len);
    touch(msg->ext, msg->ext_len);
    decode(msg, flags);
    session_messages(msg);
    extensions(msg);
}

static void as_device(const uint8_t *bytes, size_t len, unsigned options, size_t shift, uint64_t flags)
{
    uint8_t *memory = malloc(shift + len + (shift + len == 0));
    uint8_t *message = memory + shift;
    uint32_t head_len = (uint32_t)len;
    struct mf__msg msg;
    int rc;

    memcpy(message, bytes, len);
    if (options & OPT_FIX_LEN && len >= sizeof(head_len))
        memcpy(message, &head_len, sizeof(head_len));
    rc = mf__msg_split(&msg, message, len);
    CHECK(rc == 0 || rc == -EPROTO);
    if (rc == 0)
        CHECK(HEAD + msg.args_len + msg.body_len + msg.ext_len == len);
    everything(&msg, flags); /* after a failure too: the views are empty then */
    free(memory);
}

/* The bytes before `at` fill the header buffer, those behind it are the payload. */
static void as_ring(const uint8_t *bytes, size_t len, size_t at, uint64_t flags)
{
    struct fuse_uring_req_header *header = calloc(1, sizeof(*header));
    size_t payload_len;
    uint8_t *payload;
    struct mf__msg msg;
    int rc;

    if (at > len)
        at = len;
    payload_len = len - at;
    payload = malloc(payload_len + (payload_len == 0));
    memcpy(header->in_out, bytes, at < HEAD ? at : HEAD);
    if (at > HEAD)
        memcpy(header->op_in, bytes + HEAD, at - HEAD < sizeof(header->op_in) ? at - HEAD : sizeof(header->op_in));
    memcpy(payload, bytes + at, payload_len);
    rc = mf__msg_from_ring(&msg, header, payload, payload_len);
    CHECK(rc == 0 || rc == -EPROTO);
    everything(&msg, flags);
    free(payload);
    free(header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t flags;
    size_t split;

    if (size < CONTROL)
        return 0;
    flags = (data[0] & OPT_FLAGS ? ~FUSE_SETXATTR_EXT : 0) | (data[0] & OPT_SETXATTR_EXT ? FUSE_SETXATTR_EXT : 0);
    split = data[2] | (size_t)data[3] << 8;
    as_device(data + CONTROL, size - CONTROL, data[0], data[1] % 16, flags);
    as_ring(data + CONTROL, size - CONTROL, split, flags);
    return 0;
}
