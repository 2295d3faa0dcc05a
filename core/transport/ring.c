/* SPDX-License-Identifier: MIT */
/*
 * ring.c - requests over io_uring (7.42).
 *
 * One ring serves one queue, or several, and any number of threads serve one ring. The ring is a plain one (no
 * SINGLE_ISSUER, no DEFER_TASKRUN): the kernel copies a request into an entry's buffers in the task that
 * submitted the entry's last command, also while that task is blocked in a handler, and whichever thread waits
 * on the ring then takes the completion. So a handler that waits holds up nobody: another thread goes on, and
 * each answer that it gives moves an entry over to it. (What a blocked system call sees of it is a restart, or
 * EINTR where signal(7) says that it is never restarted, as for epoll_wait(2).)
 *
 * Several threads submit, so the submission side has a lock. Completions are claimed one by one with a
 * compare-and-swap on the ring's head: a thread never holds one that it is not about to handle.
 *
 * Answers from threads that are none of the session's are committed by a reader: a foreign thread may exit, and
 * an entry that it had armed would fail its next request.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/ring.h"
#include "wire/uring.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define WAKE_DATA UINT64_MAX /* user_data of the NOP that wakes */
#define BODY_SLACK 65536u    /* for an answer that is built beside the request's payload */

struct entry {
    struct fuse_uring_req_header *head;
    uint8_t *payload;
    struct iovec iov[2]; /* the kernel remembers what it points to, not the array itself */
    uint32_t queue;
    uint32_t next_commit; /* list of answers that foreign threads laid: index + 1 */
    uint64_t commit_id;
};

struct ring {
    struct mf__channel ch;
    struct mf__ring_opts opts;
    int fd;
    uint8_t *maps;
    size_t maps_size;
    struct mf__sqe *sqes;
    size_t sqes_size;
    _Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
    uint32_t *sq_array;
    uint32_t sq_mask, cq_mask;
    struct mf__cqe *cqes;
    struct entry *entries;
    uint32_t count;
    struct mf__region headers, payloads;
    size_t payload_room;
    pthread_mutex_t submit;
    _Atomic uint32_t foreign; /* first of the answers that wait for a reader's commit: index + 1 */
    _Atomic int state;        /* 0 nothing registered, 1 registered, negative: refused */
    _Atomic uint32_t gone;    /* entries that the kernel gave back for good */
    _Atomic bool shut;
};

static struct ring *ring_of(struct mf__channel *ch)
{
    return MF__CONTAINER_OF(ch, struct ring, ch);
}

static int sys_setup(uint32_t entries, struct mf__uring_params *p)
{
    long rc = syscall(MF__SYS_IO_URING_SETUP, entries, p);

    return rc < 0 ? -errno : (int)rc;
}

static int sys_enter(int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    long rc = syscall(MF__SYS_IO_URING_ENTER, fd, submit, wait, flags, NULL, 0);

    return rc < 0 ? -errno : (int)rc;
}

/* ---- what the system offers ------------------------------------------------------------------------ */

uint32_t mf__ring_queues(void)
{
    FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
    unsigned first = 0, last = 0;
    int n;

    if (!file)
        return 0;
    n = fscanf(file, "%u-%u", &first, &last);
    fclose(file);
    if (n == 1)
        last = first;
    return n < 1 || first != 0 ? 0 : last + 1;
}

int mf__ring_probe(char *reason, size_t room)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 };
    int fd = sys_setup(4, &p);

    if (fd < 0) {
        snprintf(reason, room, "io_uring_setup is refused here: %s", mf__strerror(-fd));
        return fd;
    }
    close(fd);
    if (mf__ring_queues() == 0) {
        snprintf(reason, room, "the number of possible CPUs is not known");
        return -ENOTSUP;
    }
    return 0;
}

/* ---- submission ------------------------------------------------------------------------------------ */

/* The next free submission entry, cleared. The caller holds the lock; each entry is submitted at once. */
static struct mf__sqe *next_sqe(struct ring *r, uint32_t *tail)
{
    struct mf__sqe *sqe;
    uint32_t i;

    *tail = atomic_load_explicit(r->sq_tail, memory_order_relaxed);
    i = *tail & r->sq_mask;
    sqe = &r->sqes[i];
    memset(sqe, 0, sizeof(*sqe));
    r->sq_array[i] = i;
    return sqe;
}

static void push_command(struct ring *r, uint32_t index, uint32_t op)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue };
    uint32_t tail;
    struct mf__sqe *sqe = next_sqe(r, &tail);

    sqe->opcode = MF__URING_OP_URING_CMD;
    sqe->flags = MF__URING_FIXED_FILE;
    sqe->fd = 0;
    sqe->cmd_op = op;
    sqe->user_data = index;
    if (op == FUSE_IO_URING_CMD_REGISTER) {
        sqe->addr = (uintptr_t)e->iov;
        sqe->len = 2;
    } else {
        cmd.commit_id = e->commit_id;
    }
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    atomic_store_explicit(r->sq_tail, tail + 1, memory_order_release);
}

static int submit(struct ring *r, uint32_t n)
{
    int rc;

    do {
        rc = sys_enter(r->fd, n, 0, 0);
        if (rc > 0)
            n -= (uint32_t)rc;
    } while (n && (rc > 0 || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY));
    return rc < 0 ? rc : 0;
}

static int commit(struct ring *r, uint32_t index)
{
    int rc = -ENODEV;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load_explicit(&r->shut, memory_order_relaxed)) {
        push_command(r, index, FUSE_IO_URING_CMD_COMMIT_AND_FETCH);
        rc = submit(r, 1);
    }
    pthread_mutex_unlock(&r->submit);
    return rc;
}

static void ring_wake(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t tail;

    pthread_mutex_lock(&r->submit);
    if (!atomic_load(&r->shut)) {
        struct mf__sqe *sqe = next_sqe(r, &tail);

        sqe->opcode = MF__URING_OP_NOP;
        sqe->user_data = WAKE_DATA;
        atomic_store_explicit(r->sq_tail, tail + 1, memory_order_release);
        submit(r, 1);
    }
    pthread_mutex_unlock(&r->submit);
}

static int register_entries(struct ring *r)
{
    int32_t file = r->opts.device;
    int rc = 0;

    if (syscall(MF__SYS_IO_URING_REGISTER, r->fd, MF__URING_REGISTER_FILES, &file, 1) < 0)
        rc = -errno;
    for (uint32_t i = 0; i < r->count && rc == 0; i++) {
        push_command(r, i, FUSE_IO_URING_CMD_REGISTER);
        rc = submit(r, 1);
    }
    atomic_store(&r->state, rc < 0 ? rc : 1);
    return rc;
}

int mf__ring_state(struct mf__channel *ch)
{
    return atomic_load(&ring_of(ch)->state);
}

/* ---- completions ----------------------------------------------------------------------------------- */

static bool claim_cqe(struct ring *r, struct mf__cqe *out)
{
    uint32_t head = atomic_load_explicit(r->cq_head, memory_order_acquire);

    for (;;) {
        if (head == atomic_load_explicit(r->cq_tail, memory_order_acquire))
            return false;
        *out = r->cqes[head & r->cq_mask];
        if (atomic_compare_exchange_weak_explicit(r->cq_head, &head, head + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            return true;
    }
}

/* Answers that foreign threads have laid: commit them here, in a task that lives as long as the ring. */
static void commit_foreign(struct ring *r)
{
    uint32_t next = atomic_exchange_explicit(&r->foreign, 0, memory_order_acquire);

    while (next) {
        uint32_t index = next - 1;

        next = r->entries[index].next_commit;
        commit(r, index);
    }
}

static void deliver(struct ring *r, uint32_t index, struct mf__io *io)
{
    struct entry *e = &r->entries[index];
    size_t used = e->head->ring_ent_in_out.payload_sz;
    size_t beside;

    e->commit_id = e->head->ring_ent_in_out.commit_id;
    io->entry = index;
    io->queue = e->queue;
    io->commit_id = e->commit_id;
    if (used > r->opts.max_payload || mf__msg_from_ring(&io->msg, e->head, e->payload, used) < 0)
        io->msg.hdr.opcode = 0;
    /* An answer must not grow over names that a handler still reads; it moves to the front when it is sent. */
    beside = used ? mf__round_up(used, MF__CACHE_LINE) : 0;
    io->body = e->payload + beside;
    io->body_size = r->payload_room - beside;
}

/* 1: a request was delivered; 0: look again; -ENODEV: the last entry is gone. */
static int completed(struct ring *r, const struct mf__cqe *cqe, struct mf__io *io)
{
    uint32_t index = (uint32_t)cqe->user_data;

    if (cqe->user_data == WAKE_DATA) {
        commit_foreign(r);
        return -EINTR;
    }
    if (cqe->res == 0) {
        deliver(r, index, io);
        return 1;
    }
    if (cqe->res == -EAGAIN || cqe->res == -EINTR) {
        pthread_mutex_lock(&r->submit);
        push_command(r, index, r->entries[index].commit_id ? FUSE_IO_URING_CMD_COMMIT_AND_FETCH
                                                           : FUSE_IO_URING_CMD_REGISTER);
        submit(r, 1);
        pthread_mutex_unlock(&r->submit);
        return 0;
    }
    /* Before the first request: the kernel took the mount back to the device. */
    if (cqe->res != -ENOTCONN && cqe->res != -ECANCELED && !r->entries[index].commit_id)
        atomic_store(&r->state, cqe->res);
    return atomic_fetch_add(&r->gone, 1) + 1 == r->count ? -ENODEV : 0;
}

static int ring_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    struct ring *r = ring_of(ch);
    struct mf__cqe cqe;
    int rc;

    if (atomic_load_explicit(&r->state, memory_order_relaxed) == 0) {
        pthread_mutex_lock(&r->submit);
        rc = atomic_load(&r->state) == 0 ? register_entries(r) : 0;
        pthread_mutex_unlock(&r->submit);
        if (rc < 0)
            return rc;
    }
    for (;;) {
        while (!claim_cqe(r, &cqe)) {
            if (atomic_load_explicit(&r->shut, memory_order_relaxed))
                return -ENODEV;
            rc = sys_enter(r->fd, 0, 1, MF__URING_ENTER_GETEVENTS);
            if (rc < 0)
                return rc == -EBADF ? -ENODEV : rc;
        }
        rc = completed(r, &cqe, spare);
        if (rc < 0)
            return rc;
        if (rc > 0)
            break;
    }
    *got = spare;
    return 0;
}

/* ---- answers --------------------------------------------------------------------------------------- */

/* Gather the body at the front of the entry's payload. */
static size_t lay_body(struct entry *e, const struct iovec *iov, int n)
{
    size_t done = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len && iov[i].iov_base != e->payload + done)
            memmove(e->payload + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
    }
    return done;
}

static int give_to_reader(struct ring *r, uint32_t index)
{
    uint32_t head = atomic_load_explicit(&r->foreign, memory_order_relaxed);

    do {
        r->entries[index].next_commit = head;
    } while (!atomic_compare_exchange_weak_explicit(&r->foreign, &head, index + 1, memory_order_release,
                                                    memory_order_relaxed));
    ring_wake(&r->ch);
    return 0;
}

static int ring_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    struct ring *r = ring_of(ch);
    struct entry *e = &r->entries[io->entry];
    size_t body = lay_body(e, iov, n);

    mf__put_header(e->head->in_out, body, error, unique);
    e->head->ring_ent_in_out.payload_sz = (uint32_t)body;
    return io->own_thread ? commit(r, io->entry) : give_to_reader(r, io->entry);
}

/* Notifications and answers to INTERRUPT travel on the device, beside the ring. */
static int ring_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    ssize_t n = write(ring_of(ch)->opts.device, msg, len);

    return n < 0 ? -errno : 0;
}

static int ring_clone(struct mf__channel *ch, struct mf__channel **out)
{
    (void)ch;
    (void)out;
    return -ENOTSUP;
}

/* ---- making and unmaking --------------------------------------------------------------------------- */

void mf__ring_shut(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    pthread_mutex_lock(&r->submit);
    if (!atomic_exchange(&r->shut, true)) {
        /* All three: the kernel releases a ring only when descriptor and maps are gone. */
        munmap(r->sqes, r->sqes_size);
        munmap(r->maps, r->maps_size);
        close(r->fd);
    }
    pthread_mutex_unlock(&r->submit);
}

static void ring_close(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    mf__ring_shut(ch);
    mf__region_free(&r->payloads);
    mf__region_free(&r->headers);
    free(r->entries);
    pthread_mutex_destroy(&r->submit);
    free(r);
}

static const struct mf__transport ring_transport = {
    .name = "io_uring",
    .kind = MF_TRANSPORT_URING,
    .receive = ring_receive,
    .send = ring_send,
    .write_raw = ring_write_raw,
    .clone = ring_clone,
    .wake = ring_wake,
    .close = ring_close,
};

static int ring_map(struct ring *r, const struct mf__uring_params *p)
{
    size_t sq_size = p->sq.c + p->sq_entries * sizeof(uint32_t);
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(struct mf__cqe);

    r->maps_size = sq_size > cq_size ? sq_size : cq_size;
    r->maps = mmap(NULL, r->maps_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
    if (r->maps == MAP_FAILED)
        return -errno;
    r->sqes_size = p->sq_entries * sizeof(struct mf__sqe);
    r->sqes = mmap(NULL, r->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, MF__URING_OFF_SQES);
    if (r->sqes == MAP_FAILED) {
        munmap(r->maps, r->maps_size);
        return -errno;
    }
    /* A child that does not exec would keep the ring, and with it the mount, alive. */
    madvise(r->maps, r->maps_size, MADV_DONTFORK);
    madvise(r->sqes, r->sqes_size, MADV_DONTFORK);
    r->sq_tail = (void *)(r->maps + p->sq.tail);
    r->sq_mask = *(uint32_t *)(void *)(r->maps + p->sq.ring_mask);
    r->sq_array = (void *)(r->maps + p->sq.c);
    r->cq_head = (void *)(r->maps + p->cq.head);
    r->cq_tail = (void *)(r->maps + p->cq.tail);
    r->cq_mask = *(uint32_t *)(void *)(r->maps + p->cq.ring_mask);
    r->cqes = (void *)(r->maps + p->cq.b);
    return 0;
}

static int ring_open(struct ring *r)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 | MF__URING_SETUP_CQSIZE,
                                  .cq_entries = 2 * (r->count + 8) };
    int rc;

    r->fd = sys_setup(8, &p); /* entries are submitted as they come, so the queue stays short */
    if (r->fd < 0)
        return r->fd;
    rc = ring_map(r, &p);
    if (rc < 0)
        close(r->fd);
    return rc;
}

static void entry_init(struct ring *r, uint32_t i, uint32_t queue)
{
    struct entry *e = &r->entries[i];
    size_t head_room = mf__round_up(sizeof(*e->head), MF__CACHE_LINE);

    e->queue = queue;
    e->head = (void *)(r->headers.base + i * head_room);
    e->payload = r->payloads.base + i * r->payload_room;
    e->iov[0] = (struct iovec){ .iov_base = e->head, .iov_len = sizeof(*e->head) };
    e->iov[1] = (struct iovec){ .iov_base = e->payload, .iov_len = r->opts.max_payload };
}

static int ring_memory(struct ring *r)
{
    uint32_t i = 0;
    int rc;

    for (uint32_t q = r->opts.first_queue; q < r->opts.queues; q += r->opts.step)
        r->count += r->opts.depth;
    r->payload_room = mf__round_up(r->opts.max_payload, MF__PAGE) + BODY_SLACK + MF__PAGE;
    r->entries = calloc(r->count, sizeof(*r->entries));
    if (!r->entries)
        return -ENOMEM;
    rc = mf__region_new(&r->headers, r->count * mf__round_up(sizeof(struct fuse_uring_req_header), MF__CACHE_LINE));
    if (rc == 0)
        rc = mf__region_new(&r->payloads, r->count * r->payload_room);
    if (rc < 0)
        return rc;
    /* A forked child must not share pages that the kernel writes to: they would be copied under its feet. */
    madvise(r->headers.base, r->headers.size, MADV_DONTFORK);
    madvise(r->payloads.base, r->payloads.size, MADV_DONTFORK);
    for (uint32_t q = r->opts.first_queue; q < r->opts.queues; q += r->opts.step)
        for (uint32_t d = 0; d < r->opts.depth; d++)
            entry_init(r, i++, q);
    return 0;
}

int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out)
{
    struct ring *r = calloc(1, sizeof(*r));
    int rc;

    if (!r)
        return -ENOMEM;
    r->opts = *opts;
    pthread_mutex_init(&r->submit, NULL);
    rc = ring_memory(r);
    if (rc == 0)
        rc = ring_open(r);
    if (rc < 0) {
        mf__region_free(&r->payloads);
        mf__region_free(&r->headers);
        free(r->entries);
        pthread_mutex_destroy(&r->submit);
        free(r);
        return rc;
    }
    r->ch.ops = &ring_transport;
    r->ch.index = opts->index;
    r->ch.fd = r->fd;
    atomic_init(&r->ch.refs, 1);
    *out = &r->ch;
    return 0;
}

#else

uint32_t mf__ring_queues(void)
{
    return 0;
}

int mf__ring_probe(char *reason, size_t room)
{
    snprintf(reason, room, "this platform has no io_uring");
    return -ENOTSUP;
}

int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out)
{
    (void)opts;
    (void)out;
    return -ENOTSUP;
}

int mf__ring_state(struct mf__channel *ch)
{
    (void)ch;
    return -ENOTSUP;
}

void mf__ring_shut(struct mf__channel *ch)
{
    (void)ch;
}

#endif
