/* SPDX-License-Identifier: MIT */
/* slot.c - memory of the requests in hand: per reader, preallocated, reused last in first out. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "session/session.h"

_Static_assert(sizeof(struct mf__slot) <= MF__SLOT_ALIGN, "a slot is found by masking a token");
_Static_assert(MF__BODY_LEAD <= MF__PAGE, "the page before a body is the transport's");
_Static_assert(MF__TOKENS * sizeof(uint64_t) == MF__SLOT_ALIGN, "one address per generation");

#define FIRST_SLAB 4u

/* WRITE's data begin where the header and its structure end: that shall be a page boundary. */
#define RECV_LEAD (MF__PAGE - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in))

static size_t recv_room(const struct mf_session *s)
{
    return mf__round_up(s->terms.max_write, MF__PAGE) + 2 * MF__PAGE;
}

static size_t body_room(const struct mf_session *s)
{
    /* Of the first page the transport has the end: for the reply header, or a short answer with it. Xattr values may be 64 KiB whatever max_write is. */
    size_t body = s->terms.max_write > 65536u ? s->terms.max_write : 65536u;

    /* Where the number of pages is not agreed upon, a read may have the kernel's default, whatever max_write is. */
    if (!(s->terms.flags & FUSE_MAX_PAGES) && body < 32 * MF__PAGE)
        body = 32 * MF__PAGE;
    return mf__round_up(body, MF__PAGE) + MF__PAGE;
}

static void slot_init(struct mf__slot *slot, struct mf__reader *r, uint8_t *recv, uint8_t *body)
{
    struct mf_session *s = r->session;

    slot->reader = r;
    slot->io.recv = recv + RECV_LEAD;
    slot->io.recv_size = recv_room(s) - RECV_LEAD;
    slot->io.body = body + MF__PAGE;
    slot->io.body_size = body_room(s) - MF__PAGE;
    slot->call.size = sizeof(slot->call);
    slot->call.session = s;
    slot->call.reader = r->index;
}

static int slab_add(struct mf__reader *r, uint32_t count)
{
    struct mf_session *s = r->session;
    size_t each = recv_room(s) + body_room(s);
    struct mf__slab *slab = calloc(1, sizeof(*slab));

    if (!slab)
        return -ENOMEM;
    if (mf__region_new(&slab->slots_mem, (size_t)count * MF__SLOT_ALIGN) < 0)
        goto no_slots;
    if (mf__region_new(&slab->buffers, count * each) < 0)
        goto no_buffers;
    slab->count = count;
    for (uint32_t i = count; i-- > 0;) {
        struct mf__slot *slot = (struct mf__slot *)(void *)(slab->slots_mem.base + (size_t)i * MF__SLOT_ALIGN);
        uint8_t *buffers = slab->buffers.base + i * each;

        slot_init(slot, r, buffers, buffers + recv_room(s));
        slot->next = r->free;
        r->free = slot;
    }
    r->slots += count;
    slab->next = atomic_load_explicit(&r->slabs, memory_order_relaxed);
    atomic_store_explicit(&r->slabs, slab, memory_order_release);
    return 0;
no_buffers:
    mf__region_free(&slab->slots_mem);
no_slots:
    free(slab);
    return -ENOMEM;
}

int mf__reader_new(struct mf_session *s, struct mf__channel *ch, struct mf__reader **out)
{
    struct mf__reader *r = NULL;

    if (posix_memalign((void **)&r, MF__CACHE_LINE, sizeof(*r)) != 0)
        return -ENOMEM;
    memset(r, 0, sizeof(*r));
    r->session = s;
    r->ch = ch;
    r->fd = ch->fd;
    r->cpu = -1;
    for (uint32_t i = 0; i < MF__TASK_FILES; i++)
        r->files.fd[i] = -1;
    atomic_init(&r->rx, ch);
    r->index = atomic_load(&s->reader_count);
    r->foreign = calloc(1, sizeof(*r->foreign));
    if (!r->foreign || slab_add(r, FIRST_SLAB) < 0) {
        free(r->foreign);
        free(r);
        return -ENOMEM;
    }
    mf__channel_get(ch);
    *out = r;
    return 0;
}

void mf__reader_free(struct mf__reader *r)
{
    struct mf__slab *slab = atomic_load(&r->slabs);

    while (slab) {
        struct mf__slab *next = slab->next;

        mf__region_free(&slab->slots_mem);
        mf__region_free(&slab->buffers);
        free(slab);
        slab = next;
    }
    free(r->foreign);
    free(r);
}

static struct mf__slot *pop_free(struct mf__reader *r)
{
    struct mf__slot *slot = r->free;

    if (!slot)
        slot = atomic_exchange_explicit(&r->returned, NULL, memory_order_acquire);
    if (slot)
        r->free = slot->next;
    return slot;
}

/* All slots are kept by handlers that answer later: wait until one comes back, or the session stops. */
static void wait_for_return(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&s->lock);
    atomic_store(&r->starving, 1);
    if (!atomic_load(&r->returned) && !atomic_load(&s->stop))
        (void)mf__cond_wait(&s->changed, &s->lock, MF_SECOND / 10);
    atomic_store(&r->starving, 0);
    pthread_mutex_unlock(&s->lock);
    pthread_setcancelstate(cancel, NULL);
}

struct mf__slot *mf__slot_take(struct mf__reader *r)
{
    uint32_t limit = r->session->opts.max_outstanding;
    struct mf__slot *slot;

    while (!(slot = pop_free(r))) {
        uint32_t more = r->slots < limit - r->slots ? r->slots : limit - r->slots;

        if (atomic_load(&r->session->stop))
            return NULL;
        if (more && slab_add(r, more) == 0)
            continue;
        mf__reader_flush(r);
        wait_for_return(r);
    }
    return slot;
}

static uint32_t state_of(uint32_t generation, bool open)
{
    return (generation % MF__TOKENS) << 1 | (open ? 1u : 0u);
}

void mf__slot_open(struct mf__slot *slot)
{
    slot->generation++;
    slot->kept = false;
    slot->inside = false;
    slot->returned = true; /* there is none yet */
    slot->dirents = 0;
    atomic_store_explicit(&slot->left, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->state, state_of(slot->generation, true), memory_order_release);
}

void mf__slot_recycle(struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;

    if (!r->spare) {
        r->spare = slot;
        return;
    }
    slot->next = r->free;
    r->free = slot;
}

void mf__slot_give_back(struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;
    struct mf_session *s = r->session;
    struct mf__slot *head = atomic_load_explicit(&r->returned, memory_order_relaxed);

    do {
        slot->next = head;
    } while (!atomic_compare_exchange_weak(&r->returned, &head, slot));
    if (atomic_load(&r->starving)) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
}

struct mf_req *mf__slot_token(struct mf__slot *slot)
{
    return (struct mf_req *)(void *)((uint8_t *)slot + (slot->generation % MF__TOKENS) * sizeof(uint64_t));
}

struct mf__slot *mf__token_slot(struct mf_req *req)
{
    return (struct mf__slot *)((uintptr_t)req & ~(uintptr_t)(MF__SLOT_ALIGN - 1));
}

static uint32_t token_generation(struct mf_req *req)
{
    return (uint32_t)((uintptr_t)req % MF__SLOT_ALIGN / sizeof(uint64_t));
}

int mf__token_claim(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);
    uint32_t open = state_of(token_generation(req), true);

    if (!atomic_compare_exchange_strong_explicit(&slot->state, &open, open & ~1u, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return -EALREADY;
    if (mf__self)
        mf__self->claimed = slot;
    return 0;
}

bool mf__token_is_open(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    return atomic_load_explicit(&slot->state, memory_order_acquire) == state_of(token_generation(req), true);
}

int mf__slots_each(struct mf_session *s, int (*fn)(struct mf__slot *slot, void *arg), void *arg)
{
    uint32_t readers = atomic_load_explicit(&s->reader_count, memory_order_acquire);

    for (uint32_t i = 0; i < readers; i++) {
        struct mf__slab *slab = atomic_load_explicit(&s->readers[i]->slabs, memory_order_acquire);

        for (; slab; slab = slab->next) {
            for (uint32_t n = 0; n < slab->count; n++) {
                void *slot = slab->slots_mem.base + (size_t)n * MF__SLOT_ALIGN;
                int rc = fn(slot, arg);

                if (rc)
                    return rc;
            }
        }
    }
    return 0;
}
