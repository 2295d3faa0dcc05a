/* SPDX-License-Identifier: MIT */
/* test_vkernel.h - the filesystem's end of a virtual kernel, by hand. */
#ifndef TEST_VKERNEL_H
#define TEST_VKERNEL_H

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "transport/transport.h"
#include "vkernel/vkernel.h"

#define MAX_WRITE 131072u
#define OUT_HEADER sizeof(struct fuse_out_header)

/* One channel with the buffers of one reader. */
struct end {
    struct mf__channel *ch;
    struct mf__io io;
    uint8_t *memory;
    size_t size;
};

static inline void end_open(struct end *e, struct mf__channel *ch)
{
    e->size = MAX_WRITE + 4096;
    e->memory = calloc(2, e->size);
    cr_assert_not_null(e->memory);
    e->ch = ch;
    e->io = (struct mf__io){ .recv = e->memory,
                             .recv_size = e->size,
                             .body = e->memory + e->size + OUT_HEADER,
                             .body_size = e->size - OUT_HEADER };
}

static inline void end_close(struct end *e)
{
    mf__channel_put(e->ch);
    free(e->memory);
    e->ch = NULL;
}

static inline void end_first(struct end *e, struct mf_vkernel *vk)
{
    struct mf__channel *ch = NULL;

    cr_assert_eq(mf__memory_channel(vk, &ch), 0);
    end_open(e, ch);
}

static inline void end_clone(struct end *e, struct end *of)
{
    struct mf__channel *ch = NULL;

    cr_assert_eq(of->ch->ops->clone(of->ch, &ch), 0);
    end_open(e, ch);
}

static inline int end_read(struct end *e)
{
    struct mf__io *got = NULL;
    int rc = e->ch->ops->receive(e->ch, &e->io, &got);

    if (rc == 0)
        cr_assert_eq(got, &e->io);
    return rc;
}

/* Read, and insist on an opcode. */
static inline void end_expect(struct end *e, uint32_t opcode)
{
    int rc = end_read(e);

    cr_assert_eq(rc, 0, "read: %d", rc);
    cr_assert_eq(e->io.msg.hdr.opcode, opcode, "opcode %u in place of %u", e->io.msg.hdr.opcode, opcode);
}

static inline int end_reply(struct end *e, uint64_t unique, int error, const void *body, size_t len)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)body, .iov_len = len };

    return e->ch->ops->send(e->ch, &e->io, unique, error, &iov, len > 0 ? 1 : 0);
}

/* Answer what was read last. */
static inline int end_answer(struct end *e, int error, const void *body, size_t len)
{
    return end_reply(e, e->io.msg.hdr.unique, error, body, len);
}

static inline struct fuse_init_out terms(uint64_t flags)
{
    flags |= FUSE_INIT_EXT | FUSE_MAX_PAGES | FUSE_BIG_WRITES;
    return (struct fuse_init_out){ .major = 7,
                                   .minor = 45,
                                   .flags = (uint32_t)flags,
                                   .flags2 = (uint32_t)(flags >> 32),
                                   .max_write = MAX_WRITE,
                                   .max_pages = 32 };
}

/* Read INIT and accept it. */
static inline void end_init(struct end *e, uint64_t flags)
{
    struct fuse_init_out out = terms(flags);

    end_expect(e, FUSE_INIT);
    cr_assert_eq(end_answer(e, 0, &out, sizeof(out)), 0);
}

/* A virtual kernel whose handshake is done. */
struct pair {
    struct mf_vkernel *vk;
    struct end end;
};

static inline void pair_open(struct pair *p, uint64_t flags)
{
    cr_assert_eq(mf_vkernel_new(NULL, &p->vk), 0);
    end_first(&p->end, p->vk);
    end_init(&p->end, flags);
}

static inline void pair_close(struct pair *p)
{
    end_close(&p->end);
    mf_vkernel_free(p->vk);
}

#endif
