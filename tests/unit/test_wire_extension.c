/* SPDX-License-Identifier: MIT */
/* The extension area: security contexts and groups, behind names, unaligned, cut, contradicting. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"
#include "wire_message.h"

#define HEAD sizeof(struct fuse_in_header)

static struct wire w;

/* An area under construction. */
static uint8_t area[1024];
static size_t area_len;
static size_t record_at;

static void put32(uint32_t v)
{
    memcpy(area + area_len, &v, sizeof(v));
    area_len += sizeof(v);
}

static void begin(uint32_t type)
{
    record_at = area_len;
    put32(0);
    put32(type);
}

static void put(const void *data, size_t len)
{
    memcpy(area + area_len, data, len);
    area_len += len;
}

/* Fill up to a multiple of 8 and set the size. */
static void end(void)
{
    uint32_t size;

    while ((area_len - record_at) % 8 != 0)
        area[area_len++] = 0;
    size = (uint32_t)(area_len - record_at);
    memcpy(area + record_at, &size, sizeof(size));
}

static void secctx(const char *name, const char *value)
{
    put32((uint32_t)strlen(value));
    put32(0);
    put(name, strlen(name) + 1);
    put(value, strlen(value));
}

static void groups(uint32_t count, const uint32_t *gids)
{
    begin(FUSE_EXT_GROUPS);
    put32(count);
    put(gids, count * sizeof(*gids));
    end();
}

/* A MKDIR of "dd" with the area; its memory ends with it. */
static uint8_t *mkdir_message(struct mf__msg *msg)
{
    struct fuse_mkdir_in args = { .mode = 0755 };
    uint8_t *m;

    wire_start(&w, FUSE_MKDIR);
    wire_args(&w, &args, sizeof(args));
    wire_name(&w, "dd");
    wire_ext(&w, area, area_len);
    m = wire_heap(&w, w.len, 0);
    cr_assert_eq(mf__msg_split(msg, m, w.len), 0);
    return m;
}

Test(wire_extension, the_name_ends_before_it)
{
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;

    begin(0);
    end();
    cr_assert_eq(area_len, 8);
    uint8_t *m = mkdir_message(&msg);
    cr_expect_eq(msg.ext - m, 51, "nothing aligns it");
    cr_expect_eq(msg.ext_len, 8);
    cr_assert_eq(mf__decode(&msg, 0, &call, &one), 0);
    cr_expect_str_eq(call.name, "dd");
    cr_expect_eq(call.name_len, 2);
    wire_free(m, 0);
}

/* What a kernel without a security module sends. */
Test(wire_extension, empty_record)
{
    struct mf__ext_secctx ctx;
    struct mf__msg msg;
    uint32_t gid;

    begin(0);
    end();
    uint8_t *m = mkdir_message(&msg);
    cr_expect_eq(mf__ext_secctx(&msg, 0, &ctx), -ENOENT);
    cr_expect_eq(mf__ext_group(&msg, 0, &gid), -ENOENT);
    wire_free(m, 0);
}

Test(wire_extension, no_area)
{
    struct mf__ext_secctx ctx;
    struct mf__msg msg;
    uint32_t gid;

    uint8_t *m = mkdir_message(&msg);
    cr_expect_eq(mf__ext_secctx(&msg, 0, &ctx), -ENOENT);
    cr_expect_eq(mf__ext_group(&msg, 0, &gid), -ENOENT);
    wire_free(m, 0);
}

Test(wire_extension, one_context)
{
    struct mf__ext_secctx ctx;
    struct mf__msg msg;

    begin(1);
    secctx("security.selinux", "system_u:object_r:tmp_t");
    end();
    uint8_t *m = mkdir_message(&msg);
    cr_assert_eq(mf__ext_secctx(&msg, 0, &ctx), 0);
    cr_expect_str_eq(ctx.name, "security.selinux");
    cr_assert_eq(ctx.value_len, 23);
    cr_expect_arr_eq(ctx.value, "system_u:object_r:tmp_t", 23);
    cr_expect_eq(mf__ext_secctx(&msg, 1, &ctx), -ENOENT);
    wire_free(m, 0);
}

Test(wire_extension, several_contexts_and_groups)
{
    static const char *const names[] = { "security.a", "security.bb", "security.c" };
    static const char *const values[] = { "1", "", "three" };
    const uint32_t gids[] = { 100, 4294967294u, 7 };
    struct mf__ext_secctx ctx;
    struct mf__msg msg;
    uint32_t gid;

    begin(2);
    secctx(names[0], values[0]);
    secctx(names[1], values[1]);
    end();
    groups(2, gids);
    begin(77); /* a later protocol's */
    put("unknown", 7);
    end();
    begin(1);
    secctx(names[2], values[2]);
    end();
    groups(0, gids);
    groups(1, gids + 2);
    uint8_t *m = mkdir_message(&msg);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(mf__ext_secctx(&msg, i, &ctx), 0, "context %u", i);
        cr_expect_str_eq(ctx.name, names[i]);
        cr_expect_eq(ctx.value_len, strlen(values[i]));
        cr_expect_arr_eq(ctx.value, values[i], strlen(values[i]));
        cr_assert_eq(mf__ext_group(&msg, i, &gid), 0, "group %u", i);
        cr_expect_eq(gid, gids[i]);
    }
    cr_expect_eq(mf__ext_secctx(&msg, 3, &ctx), -ENOENT);
    cr_expect_eq(mf__ext_group(&msg, 3, &gid), -ENOENT);
    cr_expect_eq(mf__ext_group(&msg, UINT32_MAX, &gid), -ENOENT);
    wire_free(m, 0);
}

Test(wire_extension, one_group_takes_sixteen_bytes)
{
    const uint32_t gid_in = 1234;
    struct mf__msg msg;
    uint32_t gid;

    groups(1, &gid_in);
    cr_expect_eq(area_len, 16);
    uint8_t *m = mkdir_message(&msg);
    cr_assert_eq(mf__ext_group(&msg, 0, &gid), 0);
    cr_expect_eq(gid, 1234);
    wire_free(m, 0);
}

Test(wire_extension, same_in_a_ring_entry)
{
    const uint32_t gid_in = 1234;
    struct mf__ext_secctx ctx;
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;
    void *header, *payload;
    size_t payload_len;
    uint32_t gid;

    begin(1);
    secctx("security.a", "value");
    end();
    groups(1, &gid_in);
    wire_free(mkdir_message(&msg), 0);
    memset(&msg, 0, sizeof(msg));
    wire_ring(&w, &header, &payload, &payload_len);
    cr_assert_eq(payload_len, 3 + area_len);
    cr_assert_eq(mf__msg_from_ring(&msg, header, payload, payload_len), 0);
    cr_assert_eq(mf__decode(&msg, 0, &call, &one), 0);
    cr_expect_str_eq(call.name, "dd");
    cr_assert_eq(mf__ext_secctx(&msg, 0, &ctx), 0);
    cr_expect_arr_eq(ctx.value, "value", 5);
    cr_assert_eq(mf__ext_group(&msg, 0, &gid), 0);
    cr_expect_eq(gid, 1234);
    free(header);
    free(payload);
}

/* Sizes of the first record that cannot be: too small, no multiple of 8, more than there is. */
Test(wire_extension, impossible_records)
{
    const uint32_t sizes[] = { 0, 1, 7, 9, 12, 15, 23, 24, 0x80000000, 0xfffffff8, UINT32_MAX };
    struct mf__ext_secctx ctx;
    struct mf__msg msg;
    uint32_t gid;

    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        area_len = 0;
        begin(0);
        put("12345678", 8);
        end();
        memcpy(area, &sizes[i], sizeof(sizes[i]));
        uint8_t *m = mkdir_message(&msg);
        cr_expect_eq(mf__ext_secctx(&msg, 0, &ctx), -EPROTO, "size %u", sizes[i]);
        cr_expect_eq(mf__ext_group(&msg, 0, &gid), -EPROTO, "size %u", sizes[i]);
        wire_free(m, 0);
    }
}

Test(wire_extension, contexts_that_do_not_fit)
{
    struct mf__ext_secctx ctx;
    struct mf__msg msg;

    for (int i = 0; i < 5; i++) {
        uint32_t huge = i == 3 ? 7 : UINT32_MAX;

        area_len = 0;
        begin(i == 4 ? 2 : 1);
        if (i == 1) { /* a name without a NUL */
            put32(0);
            put32(0);
            put("security", 8);
        } else if (i >= 2) {
            secctx("security.name.x", "value."); /* 8 + 16 + 6, filled to 32 */
        }
        end();
        if (i == 2 || i == 3)
            memcpy(area + 8, &huge, sizeof(huge)); /* 7 ends in the filling, which is not the value's */
        uint8_t *m = mkdir_message(&msg);
        if (i == 3)
            cr_expect_eq(mf__ext_secctx(&msg, 0, &ctx), 0, "within the record");
        else if (i == 4)
            cr_expect_eq(mf__ext_secctx(&msg, 1, &ctx), -EPROTO, "the second of two is missing");
        else
            cr_expect_eq(mf__ext_secctx(&msg, 0, &ctx), -EPROTO, "case %d", i);
        wire_free(m, 0);
    }
}

Test(wire_extension, groups_that_do_not_fit)
{
    const uint32_t gids[] = { 1, 2 };
    const uint32_t counts[] = { 4, 0x40000000, 0x40000001, UINT32_MAX };
    struct mf__msg msg;
    uint32_t gid;

    for (size_t i = 0; i < MF__ARRAY_SIZE(counts); i++) {
        area_len = 0;
        groups(2, gids); /* 8 + 4 + 8, filled to 24: room for 3 */
        memcpy(area + 8, &counts[i], sizeof(counts[i]));
        uint8_t *m = mkdir_message(&msg);
        cr_expect_eq(mf__ext_group(&msg, 0, &gid), -EPROTO, "count %u", counts[i]);
        wire_free(m, 0);
    }
    area_len = 0;
    begin(FUSE_EXT_GROUPS); /* no count at all */
    end();
    uint8_t *m = mkdir_message(&msg);
    cr_expect_eq(mf__ext_group(&msg, 0, &gid), -EPROTO);
    wire_free(m, 0);
}

/* Every start of a good area, in memory that ends with it: an error or an answer, never a read past the end. */
Test(wire_extension, every_truncation)
{
    const uint32_t gids[] = { 1, 2, 3 };
    size_t whole;

    begin(2);
    secctx("security.a", "first value");
    secctx("security.b", "second");
    end();
    groups(3, gids);
    whole = area_len;
    for (size_t n = 0; n <= whole; n += 8) {
        struct mf__ext_secctx ctx;
        struct mf__msg msg;
        uint32_t gid;

        area_len = n;
        uint8_t *m = mkdir_message(&msg);
        cr_expect_eq(mf__ext_group(&msg, 2, &gid),
                     n == whole                  ? 0
                     : n == 0 || n == whole - 24 ? -ENOENT
                                                 : -EPROTO,
                     "%zu of %zu bytes", n, whole);
        cr_expect_eq(mf__ext_secctx(&msg, 1, &ctx),
                     n >= whole - 24 ? 0
                     : n == 0        ? -ENOENT
                                     : -EPROTO,
                     "%zu of %zu bytes", n, whole);
        wire_free(m, 0);
    }
}
