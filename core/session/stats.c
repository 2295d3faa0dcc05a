/* SPDX-License-Identifier: MIT */
/* stats.c - counting without shared lines, log lines with a limit. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "session/session.h"
#include "transport/ring.h"

#define LOG_LINES_PER_SECOND 10u

uint64_t mf__now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * MF_SECOND + (uint64_t)ts.tv_nsec;
}

static void begin_timing(struct mf__reader *r, struct mf__slot *slot, uint32_t opcode)
{
    slot->received_ns = mf__now_ns();
    atomic_store_explicit(&r->caller, slot->io.msg.hdr.pid, memory_order_relaxed);
    slot->sampled = r->sample % MF__LATENCY_SAMPLE == 0;
    r->counts_sleeps = r->cpu >= 0 && opcode < MF_STATS_OPS &&
                       atomic_load_explicit(&r->session->overlong[opcode], memory_order_relaxed) > 0;
    if (r->counts_sleeps)
        r->sleeps = mf__thread_sleeps();
}

void mf__count_request(struct mf__reader *r, struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;
    uint32_t op = hdr->opcode < MF_STATS_OPS ? hdr->opcode : 0;

    mf__count(&r->stats.requests, 1);
    mf__count(&r->stats.ops[op].requests, 1);
    mf__count(&r->stats.ops[op].bytes_in, hdr->len);
    if (slot->row->reply == MF__REPLY_NEVER)
        mf__count(&r->stats.no_reply, 1);
    slot->received_ns = 0;
    /* While readers have rings of their own, all are: once handlers wait no more it shall be seen soon. */
    if (++r->sample % MF__LATENCY_SAMPLE == 0 || slot->io.own)
        begin_timing(r, slot, hdr->opcode);
}

/* Several readers may write at once: then one of them does not count. */
static void judge(_Atomic uint8_t *record, bool bad)
{
    uint8_t before = atomic_load_explicit(record, memory_order_relaxed);
    uint8_t after = before < 2 ? 1 : before - 1;

    if (bad)
        after = before > MF__SLOW_LIMIT ? 2 * MF__SLOW_LIMIT : before + MF__SLOW_LIMIT;
    if (after != before)
        atomic_store_explicit(record, after, memory_order_relaxed);
}

void mf__judge_unhandled(struct mf_session *s)
{
    for (uint32_t opcode = 0; opcode < MF_STATS_OPS; opcode++) {
        uint8_t op = mf__opcode(opcode)->slot;

        if (!op || !(s->implemented & (1ull << op)))
            judge(&s->slowness[opcode], false);
    }
}

bool mf__op_may_wait(const struct mf_session *s, uint32_t opcode)
{
    uint8_t slowness = opcode < MF_STATS_OPS ? atomic_load_explicit(&s->slowness[opcode], memory_order_relaxed) : 0;

    return slowness == 0 || slowness > MF__SLOW_LIMIT;
}

static void note_prompt(struct mf_session *s, uint32_t opcode)
{
    bool prompt = !mf__op_may_wait(s, opcode) &&
                  atomic_load_explicit(&s->lingers[opcode], memory_order_relaxed) <= MF__SLOW_LIMIT;

    if (prompt != atomic_load_explicit(&s->prompt[opcode], memory_order_relaxed))
        atomic_store_explicit(&s->prompt[opcode], prompt, memory_order_relaxed);
}

enum verdict { FAST, SLOW, UNKNOWN };

/*
 * One that is bound to a CPU may have stood back there for clients that had work, or computed, where no other reader
 * could have done anything meanwhile: what counts is that it slept. To ask for that takes a system call, so it is done
 * where handlers have taken long of late.
 */
static enum verdict judge_time(const struct mf__reader *r, uint32_t opcode, uint64_t ns)
{
    _Atomic uint8_t *overlong = &r->session->overlong[opcode];
    uint8_t left = atomic_load_explicit(overlong, memory_order_relaxed);

    if (ns <= MF__SLOW_NS) {
        if (left)
            atomic_store_explicit(overlong, left - 1, memory_order_relaxed);
        return FAST;
    }
    if (r->cpu < 0)
        return SLOW;
    atomic_store_explicit(overlong, UINT8_MAX, memory_order_relaxed); /* one in a hundred shall be known by the next */
    if (!r->counts_sleeps)
        return UNKNOWN;
    return mf__thread_sleeps() != r->sleeps ? SLOW : FAST;
}

void mf__count_handler(struct mf__reader *r, const struct mf__slot *slot)
{
    struct mf_session *s = r->session;
    uint32_t opcode = slot->io.msg.hdr.opcode;
    uint64_t now_ns = mf__now_ns();
    enum verdict verdict;

    if (opcode >= MF_STATS_OPS)
        return;
    verdict = judge_time(r, opcode, now_ns - slot->received_ns);
    mf__count(&r->stats.timed, verdict != UNKNOWN);
    mf__count(&r->stats.slow, verdict == SLOW);
    if (verdict != UNKNOWN)
        judge(&s->slowness[opcode], verdict == SLOW);
    /* Of an answer that went out at once the client may have had the CPU since: that is tried again before long. */
    judge(&s->lingers[opcode], slot->inside && slot->io.receives_next && now_ns - slot->answered_ns > MF__LINGER_NS);
    note_prompt(s, opcode);
}

static uint32_t bucket_of(uint64_t ns)
{
    uint32_t bits = ns < 2 ? 0 : 64u - (uint32_t)__builtin_clzll(ns - 1);

    return bits < MF_STATS_BUCKETS ? bits : MF_STATS_BUCKETS - 1;
}

/* By another thread than the reader's. */
MF__COLD static void count_foreign_reply(struct mf__counters *c, uint32_t op, int error, uint64_t bytes)
{
    atomic_fetch_add_explicit(&c->replies, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->ops[op].bytes_out, bytes, memory_order_relaxed);
    if (error)
        atomic_fetch_add_explicit(&c->ops[op].errors, 1, memory_order_relaxed);
}

static void count_own_reply(struct mf__counters *c, uint32_t op, int error, uint64_t bytes)
{
    mf__count(&c->replies, 1);
    mf__count(&c->ops[op].bytes_out, bytes);
    if (error)
        mf__count(&c->ops[op].errors, 1);
}

/* Of a request that is timed. */
static void count_latency(struct mf__slot *slot, bool inside)
{
    struct mf__reader *r = slot->reader;
    uint64_t now_ns = mf__now_ns();
    uint32_t b = bucket_of(now_ns - slot->received_ns);

    if (inside)
        slot->answered_ns = now_ns;
    if (!slot->sampled || (r->session->opts.flags & MF_OPT_NO_LATENCY))
        return;
    if (inside)
        mf__count(&r->stats.latency[b], 1);
    else
        atomic_fetch_add_explicit(&r->foreign->latency[b], 1, memory_order_relaxed);
}

void mf__count_reply(struct mf__slot *slot, int error, size_t bytes)
{
    struct mf__reader *r = slot->reader;
    uint32_t op = slot->io.msg.hdr.opcode < MF_STATS_OPS ? slot->io.msg.hdr.opcode : 0;
    bool inside = mf__self == r;
    uint64_t total = bytes + sizeof(struct fuse_out_header);

    if (inside)
        count_own_reply(&r->stats, op, error, total);
    else
        count_foreign_reply(r->foreign, op, error, total);
    if (slot->received_ns)
        count_latency(slot, inside);
}

#define SUM(r, field)                                                \
    (atomic_load_explicit(&(r)->stats.field, memory_order_relaxed) + \
     atomic_load_explicit(&(r)->foreign->field, memory_order_relaxed))

uint64_t mf__reader_bytes(const struct mf__reader *r)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < MF_STATS_OPS; i++)
        bytes += atomic_load_explicit(&r->stats.ops[i].bytes_in, memory_order_relaxed) +
                 atomic_load_explicit(&r->stats.ops[i].bytes_out, memory_order_relaxed);
    return bytes;
}

static void sum_stats(struct mf__reader *r, struct mf_reader_stats *st)
{
    st->reader = r->index;
    st->fd = r->fd;
    st->tid = atomic_load(&r->tid);
    st->replies = SUM(r, replies);
    st->requests = SUM(r, requests);
    st->wakeups = SUM(r, wakeups);
    st->malformed = SUM(r, malformed);
    st->forgotten = SUM(r, forgotten);
    st->interrupts = SUM(r, interrupts);
    st->in_flight = st->requests - SUM(r, no_reply);
    st->in_flight = st->in_flight > st->replies ? st->in_flight - st->replies : 0;
    for (uint32_t i = 0; i < MF_STATS_OPS; i++) {
        st->ops[i].requests = SUM(r, ops[i].requests);
        st->ops[i].errors = SUM(r, ops[i].errors);
        st->ops[i].bytes_in = SUM(r, ops[i].bytes_in);
        st->ops[i].bytes_out = SUM(r, ops[i].bytes_out);
        st->errors += st->ops[i].errors;
        st->bytes_in += st->ops[i].bytes_in;
        st->bytes_out += st->ops[i].bytes_out;
    }
    for (uint32_t i = 0; i < MF_STATS_BUCKETS; i++)
        st->latency[i] = SUM(r, latency[i]);
}

int mf_session_stats(struct mf_session *s, uint32_t reader, struct mf_reader_stats *out)
{
    struct mf_reader_stats st = { .size = sizeof(st) };
    uint32_t room = out->size < sizeof(st) ? out->size : (uint32_t)sizeof(st);

    if (room < offsetof(struct mf_reader_stats, requests))
        return -EINVAL;
    if (reader >= atomic_load_explicit(&s->reader_count, memory_order_acquire))
        return -ENOENT;
    sum_stats(s->readers[reader], &st);
    st.size = out->size;
    memcpy(out, &st, room);
    return 0;
}

static int write_line(int fd, const char *line, int len)
{
    return len < 0 || write(fd, line, (size_t)len) < 0 ? -EIO : 0;
}

static int write_reader(struct mf_session *s, uint32_t reader, int fd)
{
    struct mf_reader_stats st = { .size = sizeof(st) };
    char line[512];
    int rc = mf_session_stats(s, reader, &st);

    if (rc < 0)
        return rc;
    return write_line(fd, line,
                      snprintf(line, sizeof(line),
                               "{\"reader\":%u,\"fd\":%d,\"requests\":%llu,\"replies\":%llu,\"errors\":%llu,"
                               "\"bytes_in\":%llu,\"bytes_out\":%llu,\"interrupts\":%llu}\n",
                               st.reader, st.fd, (unsigned long long)st.requests, (unsigned long long)st.replies,
                               (unsigned long long)st.errors, (unsigned long long)st.bytes_in,
                               (unsigned long long)st.bytes_out, (unsigned long long)st.interrupts));
}

static int write_ring(struct mf_session *s, uint32_t ring, int fd)
{
    struct mf__crew *c = &s->crews[1 + ring];
    struct mf__ring_counts n;
    char line[512];

    n = c->counts;
    if (ring < s->ring_count)
        mf__ring_counts(s->rings[ring], &n);
    return write_line(
        fd, line,
        snprintf(line, sizeof(line),
                 "{\"ring\":%u,\"readers\":%u,\"requests\":%llu,\"behind\":%llu,\"own\":%llu,\"waits\":%llu,"
                 "\"batches\":%llu,\"calls\":%llu,\"blocked\":%llu,\"nudges\":%llu,\"led\":%llu,"
                 "\"growths\":%llu,\"shrinks\":%llu}\n",
                 ring, atomic_load(&c->members), (unsigned long long)n.requests, (unsigned long long)n.behind,
                 (unsigned long long)n.own, (unsigned long long)n.waits, (unsigned long long)n.batches,
                 (unsigned long long)n.calls, (unsigned long long)n.blocked, (unsigned long long)n.nudges,
                 (unsigned long long)atomic_load(&c->led), (unsigned long long)atomic_load(&c->growths),
                 (unsigned long long)atomic_load(&c->shrinks)));
}

static int write_device(struct mf_session *s, int fd)
{
    struct mf__crew *c = &s->crews[0];
    char line[512];

    return write_line(fd, line,
                      snprintf(line, sizeof(line),
                               "{\"device\":0,\"readers\":%u,\"blocked\":%llu,\"opened\":%llu,\"growths\":%llu,"
                               "\"shrinks\":%llu}\n",
                               atomic_load(&c->members), (unsigned long long)atomic_load(&s->door.blocked),
                               (unsigned long long)atomic_load(&s->door.opened),
                               (unsigned long long)atomic_load(&c->growths),
                               (unsigned long long)atomic_load(&c->shrinks)));
}

int mf_session_write_stats(struct mf_session *s, int fd)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < atomic_load(&s->reader_count); i++)
        rc = write_reader(s, i, fd);
    pthread_mutex_lock(&s->lock); /* crews come when it runs, and the rings go at the end */
    if (rc == 0 && s->crew_count)
        rc = write_device(s, fd);
    for (uint32_t i = 0; rc == 0 && i + 1 < s->crew_count; i++)
        rc = write_ring(s, i, fd);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* One word holds the second and the lines in it. */
static bool within_budget(struct mf_session *s)
{
    uint64_t second = mf__now_ns() / MF_SECOND;
    uint64_t old = atomic_load(&s->log_budget);
    uint64_t next;

    do {
        next = old >> 32 == second ? old + 1 : second << 32 | 1;
        if ((uint32_t)next > LOG_LINES_PER_SECOND)
            return false;
    } while (!atomic_compare_exchange_weak(&s->log_budget, &old, next));
    return true;
}

void mf__log_limited(struct mf_session *s, uint32_t level, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (!within_budget(s))
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    mf__logf(&s->log, level, "%s", text);
}
