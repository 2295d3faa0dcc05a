/* SPDX-License-Identifier: MIT */
/* Messages that a 6.18 kernel sent, written down by tests/support/recorded/record.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "wire/wire.h"
#include "wire_message.h"

#define HEAD sizeof(struct fuse_in_header)
#define DIR_GID 4242u

static const struct recording {
    const char *name;
    uint64_t flags; /* of the INIT flags in force those that decoding asks for */
    bool extensions;
} recordings[] = {
    { "6.18-full.bin", FUSE_SETXATTR_EXT, true },
    { "6.18-plain.bin", 0, false },
    { "6.18-block.bin", 0, true },
};

static uint8_t bytes[256 * 1024];

/* One recorded message, in memory that ends with it. */
struct message {
    const struct recording *from;
    uint8_t *bytes;
    size_t len;
    struct mf__msg msg;
    struct mf_call call;
    struct mf_forget one;
};

static size_t read_recording(const char *name)
{
    char path[4096];
    size_t len;
    FILE *f;

    snprintf(path, sizeof(path), "%s/tests/support/recorded/%s", MF_TEST_SOURCE_DIR, name);
    f = fopen(path, "rb");
    cr_assert_not_null(f, "%s", path);
    len = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    cr_assert(len > 1000 && len < sizeof(bytes));
    return len;
}

/* Decode every message; fn says what else is to be true of it. */
static unsigned for_each(void (*fn)(struct message *m, void *arg), void *arg)
{
    unsigned count = 0;

    for (size_t i = 0; i < MF__ARRAY_SIZE(recordings); i++) {
        size_t len = read_recording(recordings[i].name);

        for (size_t at = 0; at < len; count++) {
            struct message m = { .from = &recordings[i] };
            uint32_t head_len;

            memcpy(&head_len, bytes + at, sizeof(head_len));
            m.len = head_len;
            cr_assert(m.len >= HEAD && m.len <= len - at);
            m.bytes = malloc(m.len);
            memcpy(m.bytes, bytes + at, m.len);
            cr_assert_eq(mf__msg_split(&m.msg, m.bytes, m.len), 0);
            cr_assert_eq(mf__decode(&m.msg, m.from->flags, &m.call, &m.one), 0, "%s at %zu: %s", m.from->name, at,
                         mf__opcode(m.msg.hdr.opcode)->name);
            fn(&m, arg);
            free(m.bytes);
            at += m.len;
        }
    }
    return count;
}

static void see(struct message *m, void *arg)
{
    *(uint64_t *)arg |= 1ull << m->msg.hdr.opcode;
}

Test(wire_recorded, all_opcodes_but_virtiofs_are_there_and_decode)
{
    uint64_t seen = 0, all = 0;

    for (uint32_t nr = 0; nr < MF__OPCODES; nr++)
        all |= (uint64_t)mf__opcodes[nr].known << nr;
    cr_expect_gt(for_each(see, &seen), 300u);
    cr_expect_eq(seen, all & ~(1ull << FUSE_SETUPMAPPING | 1ull << FUSE_REMOVEMAPPING), "%llx",
                 (unsigned long long)(all & ~seen));
}

static void check_header(struct message *m, void *arg)
{
    const struct fuse_in_header *hdr = &m->msg.hdr;
    const struct mf__opcode *row = mf__opcode(hdr->opcode);

    (void)arg;
    cr_expect_eq(hdr->unique & 1, hdr->opcode == FUSE_INTERRUPT, "%s", row->name);
    cr_expect_eq(m->call.again, hdr->unique >> 63);
    cr_expect_eq(hdr->padding, 0);
    cr_expect_eq(m->call.op, row->slot);
    cr_expect_eq(m->call.unique, hdr->unique);
    if (hdr->opcode != FUSE_SETXATTR)
        cr_expect_eq(m->msg.args_len, row->args_size, "%s has its whole structure", row->name);
    if (row->names == 0 && !m->call.data)
        cr_expect_eq(m->msg.body_len, 0, "%s has nothing else", row->name);
    if (m->call.op && m->call.op != MF_OP_FORGET)
        cr_expect_neq(m->call.node, 0, "%s", row->name);
}

Test(wire_recorded, headers)
{
    for_each(check_header, NULL);
}

static void check_extension(struct message *m, void *arg)
{
    static const uint64_t makers = 1ull << FUSE_CREATE | 1ull << FUSE_TMPFILE | 1ull << FUSE_MKNOD |
                                   1ull << FUSE_MKDIR | 1ull << FUSE_SYMLINK;
    bool maker = makers >> m->msg.hdr.opcode & 1;
    unsigned *counts = arg;
    struct mf__ext_secctx ctx;
    uint32_t gid = 0;
    int rc = mf__ext_group(&m->msg, 0, &gid);

    cr_expect_eq(m->msg.ext_len != 0, maker && m->from->extensions, "%s", mf__opcode(m->msg.hdr.opcode)->name);
    cr_expect_eq(mf__ext_secctx(&m->msg, 0, &ctx), -ENOENT, "this kernel had no security module");
    if (rc == 0)
        cr_expect_eq(gid, DIR_GID);
    else
        cr_expect_eq(rc, -ENOENT);
    counts[0] += m->msg.ext_len != 0;
    counts[1] += rc == 0;
    counts[2] += m->msg.ext_len != 0 && (m->msg.ext - m->bytes) % 8 != 0;
}

Test(wire_recorded, extension_areas)
{
    unsigned counts[3] = { 0 };

    for_each(check_extension, counts);
    cr_expect_geq(counts[0], 10u, "areas");
    cr_expect_geq(counts[1], 5u, "groups");
    cr_expect_geq(counts[2], 5u, "unaligned ones");
}

/* ---- what the recorder's child did -------------------------------------------------------------------- */

static unsigned found; /* one bit for each thing */

#define FIND(bit, condition) (found |= (unsigned)(condition) << (bit))

static bool is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

static void find_names(struct message *m, void *arg)
{
    const struct mf_call *c = &m->call;

    (void)arg;
    switch (m->msg.hdr.opcode) {
    case FUSE_LOOKUP:
        FIND(0, is(c->name, "fagain") && c->again);
        FIND(1, is(c->name, "fagain") && !c->again);
        FIND(2, c->name_len == 1500);
        break;
    case FUSE_MKDIR: FIND(3, is(c->name, "nd") && c->mode == 0750 && c->umask == 027 && c->node == MF_ROOT); break;
    case FUSE_MKNOD: FIND(4, is(c->name, "nnull") && S_ISCHR(c->mode) && c->rdev == 0x103); break;
    case FUSE_SYMLINK: FIND(5, is(c->name, "nl") && is(c->name2, "../some/where")); break;
    case FUSE_LINK: FIND(6, is(c->name2, "nlink") && !c->name && c->node != MF_ROOT && c->node2 == MF_ROOT); break;
    case FUSE_RENAME:
        FIND(7, is(c->name, "fa") && is(c->name2, "nmoved") && c->node2 == MF_ROOT && c->flags == 0);
        FIND(8, is(c->name, "fb") && is(c->name2, "nmoved") && c->node2 > MF_ROOT);
        break;
    case FUSE_RENAME2:
        FIND(9, is(c->name, "fc") && is(c->name2, "fd") && c->flags == 2);
        FIND(10, is(c->name, "fe") && is(c->name2, "nnew") && c->flags == 1);
        break;
    case FUSE_CREATE: FIND(11, is(c->name, "nfile") && S_ISREG(c->mode) && (c->flags & 0300) == 0300); break;
    case FUSE_TMPFILE: FIND(12, is(c->name, "") && m->msg.body_len == 2 && m->msg.body[0] == '/'); break;
    case FUSE_SETXATTR:
        FIND(13, is(c->name, "user.with/slash") && c->flags == 1 && c->length == 3 && !memcmp(c->data, "a\0b", 3));
        FIND(14, is(c->name, "user.a") && c->flags == 2 && c->length == 0);
        FIND(15, is(c->name, "user.a") && m->from->flags == 0 && c->length == 5 && !memcmp(c->data, "value", 5));
        FIND(16, is(c->name, "user.a") && m->from->flags != 0 && c->length == 5 && !memcmp(c->data, "value", 5));
        break;
    case FUSE_GETXATTR: FIND(17, is(c->name, "user.a") && c->length == 64); break;
    }
}

Test(wire_recorded, names_and_modes)
{
    for_each(find_names, NULL);
    cr_expect_eq(found, (1u << 18) - 1, "%x", found);
}

static void find_files(struct message *m, void *arg)
{
    const struct mf_call *c = &m->call;

    (void)arg;
    switch (m->msg.hdr.opcode) {
    case FUSE_SETATTR:
        FIND(0, c->valid & MF_SET_SIZE && c->attr.size == 200 && c->valid & MF_SET_FH && c->fh != MF_NO_FH);
        FIND(1, c->valid & MF_SET_UID && c->valid & MF_SET_GID && c->attr.uid == 1 && c->attr.gid == 2);
        FIND(2, c->valid & MF_SET_ATIME && c->attr.atime == 1 && c->attr.atimensec == 2);
        break;
    case FUSE_WRITE:
        FIND(3, c->offset == 5000 && c->length == 300 && ((const char *)c->data)[299] == 'w');
        FIND(4, c->op_flags & FUSE_WRITE_CACHE && c->pid == 0 && c->length == 4096);
        FIND(5, c->offset == 3 && c->length == 100 && c->op_flags & FUSE_WRITE_LOCKOWNER && c->lock_owner);
        break;
    case FUSE_READ: FIND(6, c->offset == 3 && c->length == 100 && c->fh != MF_NO_FH && c->fh != 0); break;
    case FUSE_GETLK: FIND(7, c->offset == 10 && c->length == INT64_MAX && c->flags == 1 && c->lock_owner); break;
    case FUSE_SETLK:
        FIND(8, c->offset == 10 && c->length == 29 && c->flags == 1 && c->valid != 0 && c->op_flags == 0);
        FIND(9, c->flags == 0 && c->op_flags == FUSE_LK_FLOCK);
        break;
    case FUSE_IOCTL:
        FIND(10, c->length == 4 && *(const uint8_t *)c->data == 77 && c->offset2 == 4 && (c->flags & 0xffff) == 0x6d01);
        FIND(11, c->length == 0 && c->offset == 5 && c->offset2 == 0);
        break;
    case FUSE_FALLOCATE: FIND(12, c->offset == 10 && c->length == 20 && c->mode == 1); break;
    case FUSE_LSEEK: FIND(13, c->offset == 5 && c->flags == 3); break;
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
        FIND(14, c->offset == 0 && c->offset2 == 1 && c->length == 100 && c->node2 != c->node && c->fh2 != c->fh);
        FIND(15, c->offset == 7 && c->offset2 == 9 && c->length == 90);
        break;
    case FUSE_FSYNC: FIND(16, c->flags == FUSE_FSYNC_FDATASYNC); break;
    case FUSE_STATX: FIND(17, c->valid == 0xfff); break;
    case FUSE_BMAP: FIND(18, c->offset == 3 && c->length == 4096); break;
    case FUSE_READDIR: FIND(19, c->offset == 4 && c->length == 32768); break;
    case FUSE_ACCESS: FIND(20, c->flags == 6); break;
    }
}

Test(wire_recorded, what_was_done_to_files)
{
    for_each(find_files, NULL);
    cr_expect_eq(found, (1u << 21) - 1, "%x", found);
}

static void find_session(struct message *m, void *arg)
{
    const struct mf_forget *items = m->call.data;
    struct fuse_init_in init;
    uint64_t unique;

    (void)arg;
    switch (m->msg.hdr.opcode) {
    case FUSE_INIT:
        cr_assert_eq(mf__decode_init(&m->msg, &init), 0);
        FIND(0, init.major == 7 && init.minor == 45 && init.flags == 0x73fffffb && init.flags2 == 0x5fd);
        break;
    case FUSE_INTERRUPT:
        cr_assert_eq(mf__decode_interrupt(&m->msg, &unique), 0);
        FIND(1, (unique | FUSE_INT_REQ_BIT) == m->msg.hdr.unique && unique != m->msg.hdr.unique);
        break;
    case FUSE_FORGET:
        FIND(2, m->call.length == 1 && items == &m->one && items->node == m->msg.hdr.nodeid && items->nlookup == 1);
        break;
    case FUSE_BATCH_FORGET:
        cr_assert_eq(m->call.length, 10);
        for (int i = 0; i < 10; i++)
            cr_expect(items[i].node != 0 && items[i].nlookup == 1);
        FIND(3, true);
        break;
    case FUSE_NOTIFY_REPLY:
        FIND(4, m->call.length == 100 && ((const char *)m->call.data)[99] == 'x');
        FIND(5, m->call.length == 0);
        break;
    case FUSE_DESTROY: FIND(6, true); break;
    }
}

Test(wire_recorded, the_sessions_messages)
{
    for_each(find_session, NULL);
    cr_expect_eq(found, (1u << 7) - 1, "%x", found);
}

/* ---- the same, cut or in another place ----------------------------------------------------------------- */

/* With the header's len made to fit. Only what opcode.def calls an older form may still decode. */
static void truncate_it(struct message *m, void *arg)
{
    const struct mf__opcode *row = mf__opcode(m->msg.hdr.opcode);
    size_t ext_len = m->msg.ext_len;

    (void)arg;
    for (size_t n = 0; n < m->len; n++) {
        uint8_t *part = malloc(n ? n : 1);
        uint32_t head_len = (uint32_t)n;
        struct mf_forget one;
        struct mf__msg msg;
        struct mf_call call;
        int rc;

        memcpy(part, m->bytes, n);
        if (n >= sizeof(head_len))
            memcpy(part, &head_len, sizeof(head_len));
        rc = mf__msg_split(&msg, part, n);
        cr_expect_eq(rc == 0, n >= HEAD + ext_len, "%s, %zu bytes", row->name, n);
        if (rc == 0)
            rc = mf__decode(&msg, m->from->flags, &call, &one);
        if (rc == 0)
            cr_expect(n - HEAD == row->args_least || (row->props & MF__OPC_SESSION && n - HEAD == 16),
                      "%s, %zu of %zu bytes", row->name, n, m->len);
        free(part);
    }
}

Test(wire_recorded, every_truncation)
{
    for_each(truncate_it, NULL);
}

static void as_ring_entry(struct message *m, void *arg)
{
    struct wire w = { .len = m->len, .args_len = m->msg.args_len };
    struct mf_forget one = { 0 };
    struct mf__msg msg;
    struct mf_call call;
    void *header, *payload;
    size_t payload_len;

    (void)arg;
    memcpy(w.bytes, m->bytes, m->len);
    if (m->msg.hdr.opcode == FUSE_SETXATTR && !m->from->flags)
        w.args_len = FUSE_COMPAT_SETXATTR_IN_SIZE;
    wire_ring(&w, &header, &payload, &payload_len);
    cr_assert_eq(mf__msg_from_ring(&msg, header, payload, payload_len), 0);
    cr_assert_eq(mf__decode(&msg, m->from->flags, &call, &one), 0, "%s", mf__opcode(msg.hdr.opcode)->name);
    if (call.name)
        cr_expect_str_eq(call.name, m->call.name);
    if (call.name2)
        cr_expect_str_eq(call.name2, m->call.name2);
    if (call.data)
        cr_expect_arr_eq(call.data, m->call.data, call.op == MF_OP_FORGET ? call.length * 16 : call.length);
    cr_expect_eq(!call.name + !call.name2 * 2 + !call.data * 4, !m->call.name + !m->call.name2 * 2 + !m->call.data * 4);
    call.name = m->call.name;
    call.name2 = m->call.name2;
    call.data = m->call.data;
    cr_expect_arr_eq(&call, &m->call, offsetof(struct mf_call, buf), "%s", mf__opcode(msg.hdr.opcode)->name);
    free(header);
    free(payload);
}

Test(wire_recorded, as_ring_entries)
{
    for_each(as_ring_entry, NULL);
}
