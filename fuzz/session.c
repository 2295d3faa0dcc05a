/* SPDX-License-Identifier: MIT */
/*
 * session.c - a whole session, from INIT to its end, on one thread and without a kernel.
 *
 * The input is a script: which messages come, well-formed, raw or absurd, on which channel; what the handler does
 * with each; and which of the requests that it kept are answered when, and how, once more and too late. The
 * channels are the fuzzer's own. They hold every answer against the rules that a kernel applies: to the right
 * channel, once, with a size that belongs to the request. In the end nothing may be left unanswered.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "session/session.h"
#include "vkernel/vkernel.h"

#define HEAD sizeof(struct fuse_in_header)
#define MAX_STEPS 48u
#define MAX_REQUESTS 64u
#define MAX_BODY 2048u
#define DATA_SIZE (1u << 18)

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the script ------------------------------------------------------------------------------------------ */

static const uint8_t *script;
static size_t script_left;

/* After the end of the script everything is 0. */
static uint64_t number(size_t bytes)
{
    uint64_t value = 0;
    size_t n = bytes < script_left ? bytes : script_left;

    memcpy(&value, script, n);
    script += n;
    script_left -= n;
    return value;
}

static uint8_t byte(void)
{
    return (uint8_t)number(1);
}

/* Mostly small, now and then anything. */
static uint64_t value(void)
{
    uint8_t how = byte();

    switch (how & 7) {
    case 0: return 0;
    case 1: return number(2);
    case 2: return number(4);
    case 3: return number(8);
    case 4: return UINT64_MAX;
    case 5: return 4096u * (how >> 3);
    default: return how >> 3;
    }
}

static size_t bytes(uint8_t *dst, size_t most)
{
    size_t n = number(most > 255 ? 2 : 1) % (most + 1);

    if (n > script_left)
        n = script_left;
    memcpy(dst, script, n);
    script += n;
    script_left -= n;
    return n;
}

/* ---- the kernel's side ------------------------------------------------------------------------------------ */

struct request {
    uint64_t unique;
    struct mf__channel *ch;
    uint32_t least, most; /* bytes of a good answer */
    bool owed;
    bool answered;
    struct mf_req *token; /* the handler had it */
    bool kept;
};

static struct request requests[MAX_REQUESTS];
static unsigned request_count;
static uint64_t dispatched, sent, interrupts_again;
static uint8_t *message; /* the next that is received, with its length */
static size_t message_len;
static volatile unsigned sink;
static uint8_t data[DATA_SIZE];
static int file = -1, directory = -1;

static struct request *find(uint64_t unique)
{
    for (unsigned i = 0; i < request_count; i++)
        if (requests[i].unique == unique)
            return &requests[i];
    return NULL;
}

static int fake_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    (void)ch;
    CHECK(message_len <= spare->recv_size);
    memset(spare->recv, 0, sizeof(uint32_t));
    memcpy(spare->recv, message, message_len);
    if (mf__msg_split(&spare->msg, spare->recv, message_len) < 0)
        spare->msg.hdr.opcode = 0;
    *got = spare;
    return 0;
}

static int fake_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    struct request *r = find(unique);
    size_t body = 0;

    (void)io;
    CHECK(r && r->owed && !r->answered && r->ch == ch);
    CHECK(error <= 0 && error > -512 && n >= 0 && n <= 8);
    for (int i = 0; i < n; i++) {
        const uint8_t *p = iov[i].iov_base;

        body += iov[i].iov_len;
        for (size_t k = 0; k < iov[i].iov_len; k += 61)
            sink += p[k];
        if (iov[i].iov_len)
            sink += p[iov[i].iov_len - 1];
    }
    CHECK(error ? body == 0 : body >= r->least && body <= r->most);
    r->answered = true;
    sent++;
    return unique % 16 == 6 ? -ENOENT : 0; /* the kernel no longer waits for some */
}

static int fake_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    struct fuse_out_header hdr;

    (void)ch;
    CHECK(len == sizeof(hdr));
    memcpy(&hdr, msg, sizeof(hdr));
    CHECK(hdr.len == len && hdr.error == -EAGAIN && (hdr.unique & 1));
    interrupts_again++;
    return interrupts_again % 2 ? -ENOENT : 0;
}

static const struct mf__transport fake;

static struct mf__channel *fake_channel(void)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    CHECK(ch);
    ch->ops = &fake;
    ch->fd = -1;
    ch->refs = 1;
    return ch;
}

static int fake_clone(struct mf__channel *ch, struct mf__channel **out)
{
    (void)ch;
    *out = fake_channel();
    return 0;
}

static void fake_wake(struct mf__channel *ch)
{
    (void)ch;
}

static void fake_close(struct mf__channel *ch)
{
    /* The kernel would fail these. */
    for (unsigned i = 0; i < request_count; i++)
        CHECK(requests[i].ch != ch || !requests[i].owed || requests[i].answered);
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

/* ---- the filesystem's side --------------------------------------------------------------------------------- */

static struct mf_attr any_attr(void)
{
    struct mf_attr a;

    memset(&a, 0, sizeof(a));
    if (byte() & 1) {
        a.mode = S_IFREG | 0644;
        a.size = value();
        return a;
    }
    a.mode = (uint32_t)number(4);
    a.size = value();
    a.atimensec = (uint32_t)value();
    a.mtime = (int64_t)value();
    a.ino = value();
    return a;
}

static struct mf_entry any_entry(void)
{
    struct mf_entry e = { .size = sizeof(e) };

    if (byte() == 7)
        e.size = 3;
    e.node = value();
    e.generation = value();
    e.entry_timeout_ns = value();
    e.attr_timeout_ns = value();
    e.attr = any_attr();
    return e;
}

static struct mf_open any_open(void)
{
    struct mf_open o = { .size = byte() == 7 ? 2 : (uint32_t)sizeof(o) };

    o.fh = value();
    o.flags = (uint32_t)number(1);
    o.backing_id = (int32_t)number(1);
    return o;
}

static int any_descriptor(void)
{
    const int fds[] = { file, directory, -1, 100000 };

    return fds[byte() % 4];
}

static uint64_t any_length(void)
{
    uint64_t n = value();

    return n;
}

/* What is claimed to be there must be there: the engine cannot know. */
static uint64_t any_data_length(const struct mf_call *call)
{
    uint64_t n = any_length();

    return n > DATA_SIZE && n <= call->length ? DATA_SIZE : n;
}

static int add_names(struct mf_req *req)
{
    uint8_t name[300];

    for (unsigned n = byte() % 8; n > 0; n--) {
        size_t len = bytes(name, sizeof(name) - 1);
        int rc = mf_dirent_add(req, (char *)name, byte() == 7 ? 5000 : len, value(), (uint32_t)number(4), value());

        CHECK(rc == 0 || rc == -ENOSPC || rc == -EINVAL);
    }
    return mf_reply_dirents(req);
}

static int reply(struct mf_req *req)
{
    const struct mf_call *call = mf_req_call(req);
    struct mf_statfs st = { .size = sizeof(st) };
    struct mf_lock lock = { .start = 1 };
    struct mf_entry e;
    struct mf_open o;
    struct mf_attr a;

    switch (byte() % 16) {
    case 0: return mf_reply_err(req, (int)number(2));
    case 1: return mf_reply_err(req, (int)number(4));
    case 2: e = any_entry(); return mf_reply_entry(req, &e);
    case 3: a = any_attr(); return mf_reply_attr(req, &a, value());
    case 4: o = any_open(); return mf_reply_open(req, &o);
    case 5: e = any_entry(), o = any_open(); return mf_reply_create(req, &e, &o);
    case 6: return mf_reply_data(req, byte() == 7 ? NULL : data, any_data_length(call));
    case 7: return mf_reply_buffer(req, any_length());
    case 8: return mf_reply_fd(req, any_descriptor(), value(), any_length());
    case 9: return mf_reply_write(req, value());
    case 10: return mf_reply_statfs(req, &st);
    case 11: return mf_reply_xattr_size(req, value());
    case 12: return mf_reply_lseek(req, value());
    case 13: return mf_reply_lock(req, &lock);
    case 14: return add_names(req);
    default: return mf_reply_err(req, EINTR);
    }
}

static bool known_result(int rc)
{
    return rc == 0 || rc == -EALREADY || rc == -EINVAL || rc == -ENOENT;
}

static int32_t answer_by_record(struct mf_call *call)
{
    struct mf_answer *a = &call->answer;
    static const struct mf_statfs st = { .size = sizeof(st) };

    a->node = value();
    a->attr = any_attr();
    a->fh = value();
    a->value = value();
    a->data_fd = any_descriptor();
    a->flags = byte() % 3;
    a->data_len = any_data_length(call);
    switch (byte() % 4) {
    case 0: a->data = data; break;
    case 1: a->data = &st, a->data_len = call->op == MF_OP_STATFS ? a->data_len : 0; break;
    default: break;
    }
    if (call->op == MF_OP_STATFS && a->data == data)
        memcpy(data, &st, sizeof(st));
    return 0;
}

static int32_t handler(struct mf_call *call, void *user)
{
    struct request *r = find(call->unique);
    uint64_t room;
    uint8_t how = byte();
    int32_t rc = MF_ANSWERED;

    (void)user;
    CHECK(r && call->session == mf_req_session(call->req) && mf_req_call(call->req) == call);
    r->token = call->req;
    mf_req_buffer(call->req, &room);
    CHECK(room <= call->buf_size);
    if (how & 0x80)
        mf_req_interrupted(call->req);
    if (how & 0x40 && mf_req_defer(call->req) == 0)
        r->kept = true;
    if (how & 0x20)
        CHECK(known_result(reply(call->req)));
    if (how & 0x10)
        CHECK(known_result(reply(call->req)));
    switch (how & 7) {
    case 0: rc = answer_by_record(call); break;
    case 1: rc = (int32_t)number(4); break;
    case 2: rc = -(int32_t)number(2); break;
    case 3:
    case 4: rc = MF_ANSWER_LATER; break;
    default: break;
    }
    if (rc == MF_ANSWER_LATER)
        r->kept = true;
    return rc;
}

static void reader_hook(struct mf_session *s, uint32_t reader, void *user)
{
    (void)s;
    (void)reader;
    (void)user;
}

static void interrupted(struct mf_session *s, uint64_t unique, void *user)
{
    (void)s;
    (void)user;
    CHECK(unique != 0);
}

static void log_sink(uint32_t level, const char *text, void *user)
{
    (void)user;
    CHECK(level <= MF_LOG_DEBUG && strlen(text) < 1024);
}

/* ---- a session --------------------------------------------------------------------------------------------- */

static struct mf_session *new_session(void)
{
    struct mf_upcall_ops ops = { .size = sizeof(ops),
                                 .implemented = byte() & 1 ? UINT64_MAX : number(8),
                                 .upcall = handler,
                                 .reader_start = reader_hook,
                                 .reader_end = reader_hook,
                                 .interrupted = interrupted };
    struct mf_session_opts opts = {
        .size = sizeof(opts), .readers = 2, .max_write = 4096, .max_outstanding = 64, .log = log_sink
    };
    struct mf_session *s;
    uint8_t bits = byte();

    opts.acl = bits % 3;
    opts.flags = (bits & 4 ? MF_OPT_DEBUG : 0) | (bits & 8 ? MF_OPT_NO_LATENCY : 0);
    opts.clone_fd = bits & 16 ? MF_CLONE_OFF : MF_CLONE_AUTO;
    opts.want = bits & 32 ? FUSE_SETXATTR_EXT : 0;
    opts.unwant = bits & 64 ? FUSE_MAX_PAGES : 0;
    CHECK(mf_session_new_upcall(&ops, NULL, &opts, &s, NULL) == 0);
    CHECK(mf__channels_add(s, fake_channel()) == 0);
    return s;
}

static void put_message(uint8_t *msg, size_t len)
{
    message = msg;
    message_len = len;
}

static bool shake_hands(struct mf_session *s)
{
    uint8_t msg[HEAD + 256];
    struct fuse_init_in in = { .major = 7, .minor = 45, .flags = UINT32_MAX, .flags2 = UINT32_MAX };
    struct fuse_in_header hdr = { .len = sizeof(hdr) + sizeof(in), .opcode = FUSE_INIT, .unique = 2 };
    uint8_t how = byte();

    memset(msg, 0, sizeof(msg));
    if (how & 1)
        in.minor = 20u + byte() % 30;
    if (how & 2)
        in.flags = (uint32_t)number(4), in.flags2 = (uint32_t)number(4);
    if (how & 4)
        hdr.opcode = byte();
    memcpy(msg, &hdr, sizeof(hdr));
    memcpy(msg + sizeof(hdr), &in, sizeof(in));
    requests[request_count++] = (struct request){ .unique = 2, .ch = s->channels[0], .owed = true, .most = 64 };
    put_message(msg, hdr.len);
    if (how & 8) {
        put_message(msg, HEAD + bytes(msg + HEAD, 200));
        ((struct fuse_in_header *)(void *)msg)->len = (uint32_t)message_len;
    }
    if (mf__handshake(s, NULL) < 0)
        return false;
    CHECK(requests[0].answered);
    sent--; /* of INIT: no reader's statistics have it */
    return true;
}

/* Must somebody answer this, whatever the filesystem does? */
static bool is_owed(const struct fuse_in_header *hdr, size_t len)
{
    struct mf__msg msg;
    const struct mf__opcode *row;

    if (mf__msg_split(&msg, message, len) < 0)
        return hdr->unique != 0;
    row = mf__opcode(hdr->opcode);
    return !row->known || row->reply != MF__REPLY_NEVER;
}

static void deliver(struct mf_session *s, uint8_t *msg, size_t len, uint32_t reader)
{
    struct mf__reader *r = s->readers[reader];
    struct request *q = &requests[request_count++];
    struct fuse_in_header hdr = { .len = 0 };
    struct mf__slot *slot;
    struct mf__io *got;

    put_message(msg, len);
    memcpy(&hdr, msg, len < HEAD ? len : HEAD);
    *q = (struct request){ .unique = hdr.unique, .ch = r->ch, .owed = is_owed(&hdr, len) };
    if (len >= HEAD)
        mf__vk_reply_size(hdr.opcode, msg + HEAD, len - HEAD, &q->least, &q->most);
    slot = mf__slot_take(r);
    CHECK(slot);
    CHECK(r->ch->ops->receive(r->ch, &slot->io, &got) == 0);
    got->ch = r->ch;
    mf__self = r;
    mf__dispatch(r, slot);
    mf__self = NULL;
    dispatched++;
    CHECK(q->answered || q->kept || !q->owed);
}

static uint64_t next_unique(void)
{
    return (request_count + 1) * 2ull;
}

static void well_formed(struct mf_session *s, uint8_t how)
{
    _Alignas(8) uint8_t msg[HEAD + MAX_BODY];
    struct fuse_in_header hdr = { .opcode = byte() % 64, .unique = next_unique() };
    size_t body;

    hdr.nodeid = value();
    hdr.uid = how & 16 ? getuid() : 4711;
    hdr.pid = how & 32 ? 1 : 0;
    if (how & 64)
        hdr.unique |= FUSE_UNIQUE_RESEND;
    body = bytes(msg + HEAD, MAX_BODY);
    hdr.len = (uint32_t)(HEAD + body);
    if (how & 128)
        hdr.total_extlen = byte() % 8;
    if (hdr.opcode == FUSE_INTERRUPT)
        hdr.unique |= 1;
    memcpy(msg, &hdr, HEAD);
    deliver(s, msg, hdr.len, how & 8 ? 1 : 0);
}

/* Whatever it is, the id is the kernel's own. */
static void raw(struct mf_session *s, uint8_t how)
{
    _Alignas(8) uint8_t msg[HEAD + MAX_BODY];
    uint64_t unique = next_unique();
    size_t len;

    memset(msg, 0, HEAD);
    len = bytes(msg, sizeof(msg));
    if (len >= offsetof(struct fuse_in_header, unique) + sizeof(unique))
        memcpy(msg + offsetof(struct fuse_in_header, unique), &unique, sizeof(unique));
    else
        memset(msg + 8, 0, 32);
    if (how & 16 && len >= HEAD)
        memcpy(msg, &(uint32_t){ (uint32_t)len }, sizeof(uint32_t));
    deliver(s, msg, len, how & 8 ? 1 : 0);
}

static void interrupt(struct mf_session *s, uint8_t how)
{
    struct request *target = &requests[byte() % request_count];
    struct fuse_interrupt_in in = { .unique = target->unique };
    struct fuse_in_header hdr = { .len = HEAD + sizeof(in), .opcode = FUSE_INTERRUPT, .unique = target->unique | 1 };
    _Alignas(8) uint8_t msg[HEAD + sizeof(in)];

    memcpy(msg, &hdr, HEAD);
    memcpy(msg + HEAD, &in, sizeof(in));
    deliver(s, msg, sizeof(msg), how & 8 ? 1 : 0);
}

static void answer_kept(void)
{
    struct request *r = &requests[byte() % request_count];
    bool open = r->token && r->kept && r->owed && !r->answered;
    uint64_t before = sent;
    int rc;

    if (!r->token)
        return;
    if (!open && r->kept) {
        /* Its slot may be another request's by now: nothing may happen to that. */
        rc = mf_reply_err(r->token, EDOM);
        CHECK((rc == -EALREADY || rc == -EINVAL) && sent == before);
        return;
    }
    if (!open)
        return;
    CHECK(mf_req_call(r->token)->unique == r->unique);
    rc = reply(r->token);
    CHECK(known_result(rc) && rc != -EALREADY && r->answered && sent == before + 1);
    CHECK(mf_reply_err(r->token, 0) == -EALREADY);
}

static void check_statistics(struct mf_session *s)
{
    struct mf_reader_stats st[2] = { { .size = sizeof(st[0]) }, { .size = sizeof(st[0]) } };

    CHECK(mf_session_stats(s, 0, &st[0]) == 0 && mf_session_stats(s, 1, &st[1]) == 0);
    CHECK(st[0].requests + st[1].requests == dispatched);
    CHECK(st[0].replies + st[1].replies == sent);
    CHECK(st[0].in_flight + st[1].in_flight == 0);
}

static void serve(struct mf_session *s)
{
    for (unsigned step = 0; step < MAX_STEPS && script_left; step++) {
        uint8_t how = byte();

        switch (how % 8) {
        case 0:
        case 1:
        case 2: well_formed(s, how); break;
        case 3:
        case 4: raw(s, how); break;
        case 5: interrupt(s, how); break;
        default: answer_kept(); break;
        }
    }
    mf__release_kept(s);
    for (unsigned i = 0; i < request_count; i++)
        CHECK(requests[i].answered == requests[i].owed);
    check_statistics(s);
}

static void open_files(void)
{
    file = memfd_create("data", MFD_CLOEXEC);
    CHECK(file >= 0 && write(file, data, 10000) == 10000);
    directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    struct mf_session *s;

    if (file < 0)
        open_files();
    script = input;
    script_left = size;
    request_count = 0;
    dispatched = sent = interrupts_again = 0;
    s = new_session();
    if (shake_hands(s)) {
        CHECK(mf__crews_make(s) == 0);
        s->phase = MF__RUNNING; /* so that the end is that of a session which ran */
        serve(s);
    } else {
        mf__channels_close(s);
    }
    mf_session_free(s);
    return 0;
}
