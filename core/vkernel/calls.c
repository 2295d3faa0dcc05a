/* SPDX-License-Identifier: MIT */
/*
 * calls.c - the system calls of io_uring over a virtual kernel: rings in memory, submissions carried out by the
 * caller, and waiting for completions.
 *
 * The maps are memory of their own that is really gone when it is unmapped, and a ring lives until descriptor and maps
 * are gone: who uses one too late, or forgets a map, is found out.
 */
#include <stdlib.h>
#include <string.h>

#include "vkernel/vkernel.h"

#define MAX_ENTRIES 32768u

/* The front of a ring's map. Offsets are told at setup; these are ours. */
struct map {
    _Atomic uint32_t sq_head, sq_tail;
    uint32_t sq_mask, sq_entries;
    _Atomic uint32_t cq_head, cq_tail;
    uint32_t cq_mask, cq_entries;
};

struct late {
    struct mf__vk_link at;
    struct mf__cqe cqe;
};

static struct map *map_of(struct mf__vk_uring *u)
{
    return (void *)u->mapped;
}

static struct mf__cqe *cqes_of(struct mf__vk_uring *u)
{
    return (void *)(u->mapped + sizeof(struct map));
}

static uint32_t *array_of(struct mf__vk_uring *u)
{
    return (void *)(u->mapped + sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe));
}

/* ---- threads ------------------------------------------------------------------------------------ */

static pthread_once_t task_once = PTHREAD_ONCE_INIT;
static pthread_key_t task_key;

void mf__vk_task_put(struct mf__vk_task *task)
{
    if (atomic_fetch_sub(&task->refs, 1) == 1)
        free(task);
}

static void task_ends(void *arg)
{
    struct mf__vk_task *task = arg;

    atomic_store(&task->dead, true);
    mf__vk_task_put(task);
}

static void make_key(void)
{
    pthread_key_create(&task_key, task_ends);
}

static struct mf__vk_task *current_task(void)
{
    struct mf__vk_task *task;

    pthread_once(&task_once, make_key);
    task = pthread_getspecific(task_key);
    if (task)
        return task;
    task = calloc(1, sizeof(*task));
    if (!task)
        return NULL;
    atomic_init(&task->refs, 1);
    if (pthread_setspecific(task_key, task) != 0) {
        free(task);
        return NULL;
    }
    return task;
}

/* ---- rings: all with the lock held -------------------------------------------------------------- */

static struct mf__vk_uring *find(struct mf_vkernel *vk, int fd)
{
    for (struct mf__vk_link *l = vk->urings.next; l != &vk->urings; l = l->next) {
        struct mf__vk_uring *u = MF__VK_OF(l, struct mf__vk_uring, all);

        if (u->open && u->fd == fd)
            return u;
    }
    return NULL;
}

static void drop_overflow(struct mf__vk_uring *u)
{
    while (!mf__vk_list_empty(&u->overflow)) {
        struct late *late = MF__VK_OF(u->overflow.next, struct late, at);

        mf__vk_list_del(&late->at);
        free(late);
    }
}

/* Once nobody has it any more. Its entries go before its file: the connection may end with that. */
static void release_if_unused(struct mf__vk_uring *u)
{
    if (u->open || u->mapped || u->mapped_sqes || u->users)
        return;
    mf__vk_list_del(&u->all);
    mf__vk_drop_entries(u);
    drop_overflow(u);
    if (u->file)
        mf__vk_chan_drop(u->file);
    mf__region_free(&u->maps);
    mf__region_free(&u->sqes);
    pthread_cond_destroy(&u->posted);
    free(u);
}

static bool put_cqe(struct mf__vk_uring *u, uint64_t user_data, int32_t res)
{
    struct map *m = map_of(u);
    struct mf__cqe *cqe;

    if (u->tail - atomic_load_explicit(&m->cq_head, memory_order_acquire) == u->cq_entries)
        return false;
    cqe = &cqes_of(u)[u->tail & (u->cq_entries - 1)];
    __atomic_store_n(&cqe->user_data, user_data, __ATOMIC_RELAXED);
    __atomic_store_n(&cqe->res, res, __ATOMIC_RELAXED);
    __atomic_store_n(&cqe->flags, 0, __ATOMIC_RELAXED);
    atomic_store_explicit(&m->cq_tail, ++u->tail, memory_order_release);
    return true;
}

static void flush_overflow(struct mf__vk_uring *u)
{
    while (!mf__vk_list_empty(&u->overflow)) {
        struct late *late = MF__VK_OF(u->overflow.next, struct late, at);

        if (!put_cqe(u, late->cqe.user_data, late->cqe.res))
            return;
        mf__vk_list_del(&late->at);
        free(late);
    }
}

void mf__vk_post_cqe(struct mf__vk_uring *u, uint64_t user_data, int32_t res)
{
    struct late *late;

    if (!u || !u->mapped)
        return;
    if (mf__vk_list_empty(&u->overflow) && put_cqe(u, user_data, res)) {
        pthread_cond_broadcast(&u->posted);
        return;
    }
    late = calloc(1, sizeof(*late));
    if (!late)
        return;
    late->cqe = (struct mf__cqe){ .user_data = user_data, .res = res };
    mf__vk_list_add(&late->at, &u->overflow);
    pthread_cond_broadcast(&u->posted);
}

static uint32_t power_of_two(uint32_t n)
{
    uint32_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* ---- the calls ---------------------------------------------------------------------------------- */

static uint32_t call_queues(void *kernel)
{
    struct mf_vkernel *vk = kernel;

    return vk->opts.queues;
}

static int make_maps(struct mf__vk_uring *u)
{
    size_t size = sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe) + u->sq_entries * sizeof(uint32_t);
    struct map *m;
    int rc = mf__region_new(&u->maps, size);

    if (rc == 0)
        rc = mf__region_new(&u->sqes, u->sq_entries * sizeof(struct mf__sqe));
    if (rc < 0)
        return rc;
    m = (void *)u->maps.base;
    m->sq_mask = u->sq_entries - 1;
    m->sq_entries = u->sq_entries;
    m->cq_mask = u->cq_entries - 1;
    m->cq_entries = u->cq_entries;
    return 0;
}

static void tell_offsets(const struct mf__vk_uring *u, struct mf__uring_params *p)
{
    p->sq_entries = u->sq_entries;
    p->cq_entries = u->cq_entries;
    p->sq.head = offsetof(struct map, sq_head);
    p->sq.tail = offsetof(struct map, sq_tail);
    p->sq.ring_mask = offsetof(struct map, sq_mask);
    p->sq.ring_entries = offsetof(struct map, sq_entries);
    p->sq.c = (uint32_t)(sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe));
    p->cq.head = offsetof(struct map, cq_head);
    p->cq.tail = offsetof(struct map, cq_tail);
    p->cq.ring_mask = offsetof(struct map, cq_mask);
    p->cq.ring_entries = offsetof(struct map, cq_entries);
    p->cq.b = sizeof(struct map);
}

static int call_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc;

    if (entries == 0 || entries > MAX_ENTRIES || ((p->flags & MF__URING_SETUP_CQSIZE) && p->cq_entries < entries))
        return -EINVAL;
    if ((p->flags & MF__URING_SETUP_CQSIZE) && p->cq_entries > 2 * MAX_ENTRIES)
        return -EINVAL;
    u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->vk = vk;
    u->flags = p->flags;
    u->sq_entries = power_of_two(entries);
    u->cq_entries = power_of_two(p->flags & MF__URING_SETUP_CQSIZE ? p->cq_entries : 2 * entries);
    rc = make_maps(u);
    if (rc == 0 && pthread_cond_init(&u->posted, NULL) != 0)
        rc = -ENOMEM;
    if (rc < 0) {
        mf__region_free(&u->maps);
        mf__region_free(&u->sqes);
        free(u);
        return rc;
    }
    mf__vk_list_init(&u->overflow);
    u->open = true;
    tell_offsets(u, p);
    pthread_mutex_lock(&vk->lock);
    u->fd = vk->next_fd++;
    mf__vk_list_add(&u->all, &vk->urings);
    pthread_mutex_unlock(&vk->lock);
    return u->fd;
}

static int call_attach(void *kernel, int fd, struct mf__channel *device)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc = 0;

    pthread_mutex_lock(&vk->lock);
    u = find(vk, fd);
    if (!u) {
        rc = -EBADF;
    } else if (u->file) {
        rc = -EBUSY;
    } else {
        u->file = device->impl;
        mf__vk_chan_hold(u->file);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

static int call_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc = -EINVAL;

    pthread_mutex_lock(&vk->lock);
    u = find(vk, fd);
    if (!u) {
        rc = -EBADF;
    } else if (offset == 0 && size <= u->maps.size && !u->mapped) {
        *out = u->mapped = u->maps.base;
        rc = 0;
    } else if (offset == MF__URING_OFF_SQES && size <= u->sqes.size && !u->mapped_sqes) {
        *out = u->mapped_sqes = u->sqes.base;
        rc = 0;
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

static void call_unmap(void *kernel, void *base, size_t size)
{
    struct mf_vkernel *vk = kernel;

    (void)size;
    pthread_mutex_lock(&vk->lock);
    for (struct mf__vk_link *l = vk->urings.next; l != &vk->urings; l = l->next) {
        struct mf__vk_uring *u = MF__VK_OF(l, struct mf__vk_uring, all);

        if (base == u->mapped) {
            u->mapped = NULL;
            mf__region_free(&u->maps);
        } else if (base == u->mapped_sqes) {
            u->mapped_sqes = NULL;
            mf__region_free(&u->sqes);
        } else {
            continue;
        }
        release_if_unused(u);
        break;
    }
    pthread_mutex_unlock(&vk->lock);
}

static void call_close(void *kernel, int fd)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;

    pthread_mutex_lock(&vk->lock);
    u = find(vk, fd);
    if (u) {
        u->open = false;
        release_if_unused(u);
    }
    pthread_mutex_unlock(&vk->lock);
}

static bool call_over(void *kernel, struct mf__channel *device)
{
    struct mf_vkernel *vk = kernel;
    bool over;

    (void)device;
    pthread_mutex_lock(&vk->lock);
    over = !vk->connected;
    pthread_mutex_unlock(&vk->lock);
    return over;
}

/* IORING_OP_MSG_RING, of data. */
static void message(struct mf__vk_uring *u, const struct mf__sqe *sqe)
{
    struct mf__vk_uring *to = find(u->vk, sqe->fd);
    int rc = mf__vk_planned_fault(u->vk, MF__URING_OP_MSG_RING);

    if (rc == 0 && (!to || to == u))
        rc = to ? -EINVAL : -EBADF;
    if (rc == 0)
        mf__vk_post_cqe(to, sqe->offset, (int32_t)sqe->len);
    if (rc < 0 || !(sqe->flags & MF__URING_SKIP_SUCCESS))
        mf__vk_post_cqe(u, sqe->user_data, rc);
}

static int consume(struct mf__vk_uring *u, uint32_t most)
{
    struct mf__vk_task *task = current_task();
    struct map *m = map_of(u);
    uint32_t head = atomic_load_explicit(&m->sq_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&m->sq_tail, memory_order_acquire);
    int n = 0;

    if (!task)
        return -EAGAIN;
    while (n < (int)most && head != tail) {
        uint32_t index = array_of(u)[head & (u->sq_entries - 1)];
        struct mf__sqe sqe;

        head++;
        if (index >= u->sq_entries)
            continue; /* dropped */
        memcpy(&sqe, u->mapped_sqes + index * sizeof(sqe), sizeof(sqe));
        if (sqe.opcode == MF__URING_OP_MSG_RING)
            message(u, &sqe);
        else
            mf__vk_command(u, &sqe, task);
        n++;
    }
    atomic_store_explicit(&m->sq_head, head, memory_order_release);
    return n;
}

/* Until so many completions are there that nobody had taken when it began. */
static void wait_for_completions(struct mf__vk_uring *u, uint32_t n)
{
    uint32_t target = atomic_load_explicit(&map_of(u)->cq_head, memory_order_acquire) + n;

    u->users++;
    flush_overflow(u);
    while (u->mapped && (int32_t)(u->tail - target) < 0) {
        pthread_cond_wait(&u->posted, &u->vk->lock);
        if (u->mapped)
            flush_overflow(u);
    }
    u->users--;
}

static int call_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int cancel, rc = 0;

    /* Who is cancelled while he waits with the virtual kernel's lock would take it along. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_mutex_lock(&vk->lock);
    u = find(vk, fd);
    if (!u)
        rc = -EBADF;
    else if (!u->mapped || !u->mapped_sqes)
        rc = -EFAULT;
    else if (submit)
        rc = consume(u, submit);
    if (rc >= 0 && (flags & MF__URING_ENTER_GETEVENTS)) {
        wait_for_completions(u, wait);
        release_if_unused(u);
    }
    pthread_mutex_unlock(&vk->lock);
    pthread_setcancelstate(cancel, NULL);
    return rc;
}

const struct mf__uring_sys mf__vk_calls = {
    .queues = call_queues,
    .setup = call_setup,
    .enter = call_enter,
    .attach = call_attach,
    .map = call_map,
    .unmap = call_unmap,
    .close = call_close,
    .over = call_over,
};

/* ---- for tests ---------------------------------------------------------------------------------- */

const struct mf__uring_sys *mf__vk_uring(struct mf_vkernel *vk)
{
    return vk->uring_sys;
}

void mf__vk_set_uring(struct mf_vkernel *vk, const struct mf__uring_sys *sys)
{
    vk->uring_sys = sys;
}

void mf__vk_set_cpu(struct mf_vkernel *vk, int32_t cpu)
{
    pthread_mutex_lock(&vk->lock);
    vk->cpu = cpu;
    pthread_mutex_unlock(&vk->lock);
}

void mf__vk_set_fault(struct mf_vkernel *vk, const struct mf__vk_fault *fault)
{
    pthread_mutex_lock(&vk->lock);
    vk->fault = *fault;
    pthread_mutex_unlock(&vk->lock);
}

static uint32_t length_of(const struct mf__vk_link *head)
{
    uint32_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

struct mf__vk_queue_info mf__vk_queue_look(struct mf_vkernel *vk, uint32_t queue)
{
    const struct mf__vk_queue *q = &vk->queues[queue];
    struct mf__vk_queue_info info;

    pthread_mutex_lock(&vk->lock);
    info = (struct mf__vk_queue_info){ .delivered = q->delivered,
                                       .idle = length_of(&q->idle),
                                       .busy = length_of(&q->busy),
                                       .pending = length_of(&q->pending),
                                       .most_busy = q->most_busy };
    pthread_mutex_unlock(&vk->lock);
    return info;
}

uint32_t mf__vk_urings(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = length_of(&vk->urings);
    pthread_mutex_unlock(&vk->lock);
    return n;
}

bool mf__vk_uring_is_ready(struct mf_vkernel *vk)
{
    bool ready;

    pthread_mutex_lock(&vk->lock);
    ready = vk->uring_ready;
    pthread_mutex_unlock(&vk->lock);
    return ready;
}
