/* SPDX-License-Identifier: MIT */
/* test_ring.h - sessions whose requests come over the rings of a virtual kernel. */
#ifndef TEST_RING_H
#define TEST_RING_H

#include "fs_rig.h"
#include "transport/ring.h"
#include "vkernel/vkernel.h"

static inline void ring_setup(struct fs_rig *rig, uint32_t queues, uint32_t readers)
{
    fs_init(rig);
    rig->kernel.queues = queues;
    rig->opts.readers = readers;
    rig->opts.uring = MF_URING_REQUIRE;
}

static inline int ring_getattr(struct fs_rig *rig, uint64_t node)
{
    return fs_wait(rig, fs_send_getattr(rig, node));
}

/* One request on each queue, which are all served. */
static inline void ring_try_all(struct fs_rig *rig)
{
    for (uint32_t i = 0; i < rig->kernel.queues; i++) {
        uint64_t before;

        mf__vk_set_cpu(rig->vk, (int32_t)i);
        cr_assert_eq(ring_getattr(rig, FS_FILE0 + i % FS_FILES), 0, "queue %u", i);
        before = mf__vk_queue_look(rig->vk, i).delivered;
        cr_assert_gt(before, 0, "queue %u delivered nothing", i);
    }
    mf__vk_set_cpu(rig->vk, -1);
}

static inline uint64_t ring_delivered(struct fs_rig *rig)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < rig->kernel.queues; i++)
        n += mf__vk_queue_look(rig->vk, i).delivered;
    return n;
}

static inline uint32_t ring_idle(struct fs_rig *rig)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < rig->kernel.queues; i++)
        n += mf__vk_queue_look(rig->vk, i).idle;
    return n;
}

static inline void ring_right_read(struct fs_rig *rig, uint64_t node, uint32_t size)
{
    uint64_t id = fs_send_read(rig, node, size);
    uint8_t *buf = malloc(size);
    uint64_t len = size;

    cr_assert_eq(mf_client_wait(rig->vk, id, buf, &len), 0);
    cr_assert(fs_right(node, 0, buf, len), "wrong bytes");
    free(buf);
}

#endif
