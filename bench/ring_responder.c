/* SPDX-License-Identifier: MIT */
/*
 * The bare responder over io_uring: what the ring can do when there is no engine around it. Serves `null` (see
 * null_fs.h); one pinned thread and one ring per possible CPU, all completions reaped, all answers submitted in
 * one call, waiting in a second one. Handlers that wait would block a queue; `null` has none.
 *
 *   ring_responder MOUNTPOINT [--plain] [--yield] [--slow]
 *
 * --plain: without SINGLE_ISSUER and DEFER_TASKRUN; --yield: threads in class SCHED_IDLE, the session's group at
 * nice 19; --slow: files whose handlers wait (slow_fs.h) instead of `null`, and 20 threads for each queue, each with
 * a ring of its own and one entry, so that no request stands behind a handler. Needs root, and fuse's module parameter
 * enable_uring. In the foreground until unmounted or signalled.
 */
#define _GNU_SOURCE
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "slow_fs.h"
#include "yielding.h"

#define DEPTH 16u
#define INIT_OVER_IO_URING (1u << 9) /* in flags2 */
#define CMD_REGISTER 1u
#define CMD_COMMIT_AND_FETCH 2u
#define RECV_SIZE (MAX_WRITE + 4096u)
#define MAX_SERVERS 4096u

/* The protocol's buffers, for system headers that are older than 7.42. */
struct cmd_req {
    uint64_t flags, commit_id;
    uint16_t qid;
    uint8_t padding[6];
};

struct head {
    char in_out[128];
    char op_in[128];
    uint64_t flags, commit_id;
    uint32_t payload_sz, padding;
    uint64_t reserved;
};

/* One thread, its ring, and its entries in the queue of one CPU. */
struct server {
    pthread_t thread;
    unsigned cpu;
    int ring;
    unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    char *sqes;
    struct io_uring_cqe *cqes;
    struct head *heads[DEPTH];
    char *payloads[DEPTH];
    struct iovec iov[DEPTH][2];
    unsigned pending, gone;
    sem_t answered;
};

static struct {
    const char *mountpoint;
    int device;
    unsigned setup_flags;
    unsigned threads, depth; /* threads for each queue, entries for each of them */
    bool yield;
    int (*answer)(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body);
} conf = { .threads = 1, .depth = DEPTH, .answer = null_answer };
static struct server servers[MAX_SERVERS];
static pthread_t main_thread;
static char zeros[MAX_WRITE]; /* never written: all of it is one page of the system */

static void die(const char *what)
{
    fprintf(stderr, "ring_responder: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        die("no memory for buffers");
    return p;
}

static int enter(struct server *s, unsigned submit, unsigned wait, unsigned flags)
{
    return (int)syscall(__NR_io_uring_enter, s->ring, submit, wait, flags, NULL, 0);
}

static void push(struct server *s, unsigned entry, uint32_t cmd, uint64_t commit_id)
{
    unsigned tail = *s->sq_tail, i = tail & *s->sq_mask;
    struct io_uring_sqe *sqe = (void *)(s->sqes + (size_t)i * 128);
    struct cmd_req *req = (void *)((char *)sqe + 48);

    memset(sqe, 0, 128);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->off = cmd; /* cmd_op */
    sqe->user_data = entry;
    if (cmd == CMD_REGISTER) {
        sqe->addr = (uintptr_t)s->iov[entry];
        sqe->len = 2;
    }
    req->commit_id = commit_id;
    req->qid = (uint16_t)s->cpu;
    s->sq_array[i] = i;
    __atomic_store_n(s->sq_tail, tail + 1, __ATOMIC_RELEASE);
    s->pending++;
}

/*
 * On the thread that answers later: the ring's own sends the answer, for the next request would come in the sender's
 * context.
 */
static void let_go(void *who, uint64_t unique, uint64_t length)
{
    struct server *s = who;

    (void)unique, (void)length;
    sem_post(&s->answered);
}

static void serve(struct server *s, unsigned entry)
{
    struct head *h = s->heads[entry];
    char *payload = s->payloads[entry];
    struct fuse_in_header in;
    struct fuse_out_header *out = (void *)h->in_out;
    int rc;

    memcpy(&in, h->in_out, sizeof(in));
    rc = conf.answer(in.opcode, in.nodeid, h->op_in, payload, payload);
    if (rc > 0 && conf.answer == slow_answer && slow_is_deferred(in.opcode, in.nodeid)) {
        slow_defer(let_go, s, in.unique, (uint64_t)rc);
        sem_wait(&s->answered);
    }
    if (in.opcode == FUSE_READ && rc > 0)
        memcpy(payload, zeros, (size_t)rc); /* as for a server whose data lie somewhere */
    out->len = sizeof(*out) + (unsigned)(rc > 0 ? rc : 0);
    out->error = rc < 0 ? rc : 0;
    out->unique = in.unique;
    h->payload_sz = rc > 0 ? (uint32_t)rc : 0;
    push(s, entry, CMD_COMMIT_AND_FETCH, h->commit_id);
}

static void map_ring(struct server *s, struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(unsigned);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    char *m = mmap(NULL, sq > cq ? sq : cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s->ring, 0);

    s->sqes = mmap(NULL, p->sq_entries * 128ul, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, s->ring,
                   IORING_OFF_SQES);
    if (m == MAP_FAILED || s->sqes == MAP_FAILED)
        die("mapping a ring");
    s->sq_tail = (void *)(m + p->sq_off.tail);
    s->sq_mask = (void *)(m + p->sq_off.ring_mask);
    s->sq_array = (void *)(m + p->sq_off.array);
    s->cq_head = (void *)(m + p->cq_off.head);
    s->cq_tail = (void *)(m + p->cq_off.tail);
    s->cq_mask = (void *)(m + p->cq_off.ring_mask);
    s->cqes = (void *)(m + p->cq_off.cqes);
}

static void open_ring(struct server *s)
{
    struct io_uring_params p = { .flags = conf.setup_flags | IORING_SETUP_SQE128 };

    s->ring = (int)syscall(__NR_io_uring_setup, 2 * DEPTH, &p);
    if (s->ring < 0)
        die("io_uring_setup");
    map_ring(s, &p);
    if (syscall(__NR_io_uring_register, s->ring, IORING_REGISTER_FILES, &conf.device, 1) < 0)
        die("registering the device with a ring");
    for (unsigned e = 0; e < conf.depth; e++) {
        s->heads[e] = map(sizeof(struct head));
        s->payloads[e] = map(MAX_WRITE);
        s->iov[e][0] = (struct iovec){ s->heads[e], sizeof(struct head) };
        s->iov[e][1] = (struct iovec){ s->payloads[e], MAX_WRITE };
        push(s, e, CMD_REGISTER, 0);
    }
}

static void place(struct server *s)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(s->cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    if (conf.yield)
        yield_thread();
}

static bool reap(struct server *s)
{
    unsigned head = *s->cq_head;

    while (head != __atomic_load_n(s->cq_tail, __ATOMIC_ACQUIRE)) {
        const struct io_uring_cqe *cqe = &s->cqes[head & *s->cq_mask];
        unsigned entry = (unsigned)cqe->user_data;

        if (cqe->res == 0)
            serve(s, entry);
        else if (cqe->res == -EAGAIN)
            push(s, entry, CMD_REGISTER, 0);
        else
            s->gone++;
        __atomic_store_n(s->cq_head, ++head, __ATOMIC_RELEASE);
    }
    return s->gone < conf.depth;
}

static void *server_main(void *arg)
{
    struct server *s = arg;
    unsigned get = conf.setup_flags & IORING_SETUP_DEFER_TASKRUN ? IORING_ENTER_GETEVENTS : 0;

    place(s);
    open_ring(s);
    do {
        while (s->pending) {
            int n = enter(s, s->pending, 0, get);

            if (n < 0 && errno != EINTR && errno != EAGAIN)
                die("io_uring_enter");
            s->pending -= n > 0 ? (unsigned)n : 0;
        }
        if (*s->cq_head == __atomic_load_n(s->cq_tail, __ATOMIC_ACQUIRE))
            enter(s, 0, 1, IORING_ENTER_GETEVENTS);
    } while (reap(s));
    close(s->ring);
    return NULL;
}

/* FORGET and INTERRUPT come on the device, and the end. */
static void *device_main(void *arg)
{
    char *in = map(RECV_SIZE);

    (void)arg;
    while (read(conf.device, in, RECV_SIZE) >= 0 || errno == EINTR || errno == ENOENT)
        continue;
    pthread_kill(main_thread, SIGUSR2);
    return NULL;
}

static void handshake(void)
{
    char *buf = map(RECV_SIZE);
    const struct fuse_in_header *h = (void *)buf;
    const struct fuse_init_in *in = (void *)(h + 1);
    struct {
        struct fuse_out_header h;
        struct fuse_init_out init;
    } out;
    uint32_t *flags2 = (void *)((char *)&out.init + 32);

    if (read(conf.device, buf, RECV_SIZE) < 0)
        die("reading INIT");
    if (h->opcode != FUSE_INIT || !(in->flags & FUSE_INIT_EXT) ||
        !(*(const uint32_t *)((const char *)in + 16) & INIT_OVER_IO_URING)) {
        fprintf(stderr, "ring_responder: no fuse-over-io_uring: echo Y > /sys/module/fuse/parameters/enable_uring\n");
        umount2(conf.mountpoint, MNT_DETACH);
        exit(1);
    }
    fill_init(&out.init, in);
    *flags2 = INIT_OVER_IO_URING;
    out.h = (struct fuse_out_header){ .len = sizeof(out), .unique = h->unique };
    if (write(conf.device, &out, sizeof(out)) < 0)
        die("answering INIT");
}

static void mount_fs(void)
{
    char data[128];

    conf.device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (conf.device < 0)
        die("cannot open /dev/fuse (is the fuse module there, are you root?)");
    snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other", conf.device, getuid(),
             getgid());
    if (mount("ring_responder", conf.mountpoint, "fuse.ring_responder", MS_NOSUID | MS_NODEV, data) < 0)
        die("cannot mount (root and an existing directory are needed)");
}

static void parse(int argc, char **argv)
{
    bool plain = false;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--plain"))
            plain = true;
        else if (!strcmp(argv[i], "--yield"))
            conf.yield = true;
        else if (!strcmp(argv[i], "--slow"))
            conf.threads = 20, conf.depth = 1, conf.answer = slow_answer;
        else if (argv[i][0] != '-' && !conf.mountpoint)
            conf.mountpoint = argv[i];
        else
            conf.mountpoint = NULL, i = argc;
    }
    if (!conf.mountpoint) {
        fputs("usage: ring_responder MOUNTPOINT [--plain] [--yield] [--slow]\n", stderr);
        exit(2);
    }
    conf.setup_flags = plain ? 0 : IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
}

int main(int argc, char **argv)
{
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    pthread_t device;
    sigset_t set;
    int sig;

    parse(argc, argv);
    main_thread = pthread_self();
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* inherited by all threads */
    if (conf.answer == slow_answer)
        slow_begin();
    mount_fs();
    handshake();
    if (conf.yield)
        yield_group("ring_responder");
    for (unsigned i = 0; i < conf.threads * (unsigned)cpus && i < MAX_SERVERS; i++) {
        servers[i].cpu = i / conf.threads;
        sem_init(&servers[i].answered, 0, 0);
        if (pthread_create(&servers[i].thread, NULL, server_main, &servers[i]))
            die("cannot start a thread");
    }
    if (pthread_create(&device, NULL, device_main, NULL))
        die("cannot start a thread");
    sigwait(&set, &sig);
    if (sig != SIGUSR2 && umount2(conf.mountpoint, 0) < 0)
        umount2(conf.mountpoint, MNT_DETACH);
    _exit(0); /* the process's end closes what is left */
}
