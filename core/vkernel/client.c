/* SPDX-License-Identifier: MIT */
/* client.c - raw requests: any opcode, any bytes. */
#include "vkernel/vkernel.h"

static void raw_ask(struct mf__vk_ask *ask, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len)
{
    *ask = (struct mf__vk_ask){ .opcode = opcode, .node = node };
    if (in_len > 0)
        mf__vk_add(ask, in, in_len);
}

int mf_client_raw(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len, void *out,
                  uint64_t *out_len)
{
    struct mf__vk_ask ask;
    int rc;

    raw_ask(&ask, opcode, node, in, in_len);
    ask.out = out;
    /* Without a length the answer's body is of no interest, and no reason to fail. */
    ask.out_room = out_len ? *out_len : UINT64_MAX;
    if (!out_len)
        ask.out = NULL;
    rc = mf__vk_ask_raw(vk, &ask, false);
    if (out_len)
        *out_len = ask.out_len;
    return rc;
}

int mf_client_send(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                   uint64_t *unique)
{
    struct mf__vk_ask ask;

    raw_ask(&ask, opcode, node, in, in_len);
    return mf__vk_submit(vk, &ask, unique);
}

int mf_client_wait(struct mf_vkernel *vk, uint64_t unique, void *out, uint64_t *out_len)
{
    uint64_t len;
    int rc = mf__vk_collect(vk, unique, out_len ? out : NULL, out_len ? *out_len : UINT64_MAX, &len);

    if (out_len)
        *out_len = len;
    return rc;
}

int mf_client_interrupt(struct mf_vkernel *vk, uint64_t unique)
{
    int rc;

    pthread_mutex_lock(&vk->lock);
    rc = mf__vk_queue_interrupt(vk, unique);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf_client_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup)
{
    struct mf_forget one = { .node = node, .nlookup = nlookup };

    return nlookup == 0 ? 0 : mf__vk_forget(vk, &one, 1);
}
