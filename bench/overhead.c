/* SPDX-License-Identifier: MIT */
/*
 * overhead: what the engine costs a request, without a kernel. A session of examples/c/null.c on a channel that has
 * the same request ready each time and drops the answers: so the time is receiving, decoding, the handler in C and
 * the encoding of its answer. Prints CPU nanoseconds per request, as JSON, the least of several runs.
 *
 * Compiled with STATISTICS, and linked with --wrap for the two functions that count, it prints instead what counting
 * costs: within one session, blocks of requests with and without it take turns, and the median of the differences
 * within pairs counts; of several sessions the middle one. The calls of the two functions are in both, what they do in
 * one.
 */
#include <time.h>

#include "session/session.h"

#define main null_main
#include "../examples/c/null.c"
#undef main

#define WARMUP 20000u
#define RUNS 5
#ifdef STATISTICS
#define PAIRS 400u
#define BLOCK 2000u
#define COUNT (2 * PAIRS * BLOCK)
#define CHOSEN (RUNS / 2)
#else
#define COUNT 200000u
#define CHOSEN 0
#endif

static struct {
    uint8_t bytes[256];
    size_t len;
} message;
static uint64_t received, sent, failed;

static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void put_message(uint32_t opcode, uint64_t node, const void *args, size_t len)
{
    struct fuse_in_header hdr = { .opcode = opcode, .unique = 2, .nodeid = node };

    hdr.len = (uint32_t)(message.len = sizeof(hdr) + len);
    memcpy(message.bytes, &hdr, sizeof(hdr));
    memcpy(message.bytes + sizeof(hdr), args, len);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* ---- what is timed ---- */

#ifdef STATISTICS

static double marks[2 * PAIRS + 1];
static bool left_out;

void __real_mf__count_request(struct mf__reader *r, struct mf__slot *slot);
void __wrap_mf__count_request(struct mf__reader *r, struct mf__slot *slot);
void __real_mf__count_reply(struct mf__slot *slot, int error, size_t bytes);
void __wrap_mf__count_reply(struct mf__slot *slot, int error, size_t bytes);

void __wrap_mf__count_request(struct mf__reader *r, struct mf__slot *slot)
{
    slot->received_ns = 0;
    if (!left_out)
        __real_mf__count_request(r, slot);
}

void __wrap_mf__count_reply(struct mf__slot *slot, int error, size_t bytes)
{
    if (!left_out)
        __real_mf__count_reply(slot, error, bytes);
}

/* With, without, without, with. */
static bool is_without(uint64_t block)
{
    return block % 4 == 1 || block % 4 == 2;
}

static void look(void)
{
    if (received < WARMUP || (received - WARMUP) % BLOCK)
        return;
    marks[(received - WARMUP) / BLOCK] = cpu_ns();
    left_out = is_without((received - WARMUP) / BLOCK);
}

static double result(void)
{
    double costs[PAIRS];

    for (uint64_t i = 0; i < 2 * PAIRS; i += 2) {
        double first = marks[i + 1] - marks[i], second = marks[i + 2] - marks[i + 1];

        costs[i / 2] = (is_without(i) ? second - first : first - second) / BLOCK;
    }
    qsort(costs, PAIRS, sizeof(costs[0]), by_value);
    return costs[PAIRS / 2];
}

#else

static double began, ended;

static void look(void)
{
    if (received == WARMUP)
        began = cpu_ns();
    if (received == WARMUP + COUNT)
        ended = cpu_ns();
}

static double result(void)
{
    return (ended - began) / COUNT;
}

#endif

/* ---- the channel ---- */

static int fake_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    (void)ch;
    look();
    if (received == WARMUP + COUNT)
        return -ENODEV;
    received++;
    memcpy(spare->recv, message.bytes, message.len);
    if (mf__msg_split(&spare->msg, spare->recv, message.len) < 0)
        return -ECONNABORTED;
    *got = spare;
    return 0;
}

static int fake_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    (void)ch, (void)io, (void)unique, (void)iov, (void)n;
    sent++;
    failed += error != 0;
    return 0;
}

static int fake_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    (void)ch, (void)msg, (void)len;
    return 0;
}

static int fake_clone(struct mf__channel *ch, struct mf__channel **out)
{
    (void)ch, (void)out;
    return -ENOTSUP;
}

static void fake_wake(struct mf__channel *ch)
{
    (void)ch;
}

static void fake_close(struct mf__channel *ch)
{
    free(ch);
}

static const struct mf__transport fake = { .name = "fake",
                                           .kind = MF_TRANSPORT_MEMORY,
                                           .receive = fake_receive,
                                           .send = fake_send,
                                           .write_raw = fake_write_raw,
                                           .clone = fake_clone,
                                           .wake = fake_wake,
                                           .close = fake_close };

static struct mf__channel *fake_channel(void)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    if (!ch)
        abort();
    ch->ops = &fake;
    ch->fd = -1;
    ch->refs = 1;
    return ch;
}

/* ---- measuring ---- */

static struct mf_session *connected(void)
{
    struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION, .minor = 45, .flags = UINT32_MAX };
    struct mf_session_opts opts = { .size = sizeof(opts), .readers = 1, .acl = MF_ACL_ALL };
    struct mf_session *s;

    opts.clone_fd = MF_CLONE_OFF;
    put_message(FUSE_INIT, 0, &in, sizeof(in));
    if (mf_session_new(&ops, NULL, &opts, &s, NULL) < 0 || mf__channels_add(s, fake_channel()) < 0 ||
        mf__handshake(s, NULL) < 0)
        return NULL;
    s->phase = MF__READY;
    return s;
}

static bool one_run(uint32_t opcode, uint64_t node, const void *args, size_t len, double *ns)
{
    struct mf_session *s;
    bool served;

    received = sent = failed = 0;
    s = connected();
    if (!s)
        return false;
    received = sent = failed = 0;
    put_message(opcode, node, args, len);
    served = mf_session_run(s) == 0 && sent == WARMUP + COUNT && failed == 0;
    mf_session_free(s);
    *ns = result();
    return served;
}

static void measure(const char *before, const char *name, uint32_t opcode, uint64_t node, const void *args, size_t len)
{
    double ns[RUNS];

    for (int i = 0; i < RUNS; i++) {
        if (!one_run(opcode, node, args, len, &ns[i])) {
            fprintf(stderr, "overhead: %s failed\n", name);
            exit(1);
        }
    }
    qsort(ns, RUNS, sizeof(ns[0]), by_value);
    printf("%s\"%s\": %.1f", before, name, ns[CHOSEN]);
}

int main(void)
{
    struct fuse_getattr_in getattr_in = { 0 };
    struct fuse_read_in read_in = { .size = 4096, .offset = 4096 };

    measure("{", "getattr", FUSE_GETATTR, FIRST, &getattr_in, sizeof(getattr_in));
    measure(", ", "lookup", FUSE_LOOKUP, MF_ROOT, "f0123", 6);
    measure(", ", "read", FUSE_READ, FIRST, &read_in, sizeof(read_in));
    puts("}");
    return 0;
}
