/* SPDX-License-Identifier: MIT */
/*
 * The same requests and answers on both channels: on the device and on rings a handler must get the same call, and a
 * client the same answer, byte for byte.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "test_ring.h"

#define MIB (1u << 20)
#define MAX_VECTORS 160u
#define EXT_MAX 64u
#define LOG_ROOM (64u << 20)

static struct fs_rig rig;

TestSuite(ring_vectors, .timeout = 60);

/* ---- requests -------------------------------------------------------------------------------------------- */

struct vector {
    const char *what;
    uint32_t opcode;
    uint8_t *body;
    size_t len;
    uint32_t ext; /* bytes at the end of it that are extensions */
};

static struct vector vectors[MAX_VECTORS];
static unsigned n_vectors;

static void add_ext(const char *what, uint32_t opcode, const void *in, size_t in_len, const void *rest, size_t rest_len,
                    const void *ext, size_t ext_len)
{
    struct vector *v = &vectors[n_vectors++];

    cr_assert_lt(n_vectors, MAX_VECTORS);
    *v =
        (struct vector){ .what = what, .opcode = opcode, .len = in_len + rest_len + ext_len, .ext = (uint32_t)ext_len };
    v->body = malloc(v->len + 1);
    cr_assert_not_null(v->body);
    if (in_len)
        memcpy(v->body, in, in_len);
    if (rest_len)
        memcpy(v->body + in_len, rest, rest_len);
    if (ext_len)
        memcpy(v->body + in_len + rest_len, ext, ext_len);
}

static void add(const char *what, uint32_t opcode, const void *in, size_t in_len, const void *rest, size_t rest_len)
{
    add_ext(what, opcode, in, in_len, rest, rest_len, NULL, 0);
}

#define ADD(what, opcode, in) add(what, opcode, &(in), sizeof(in), NULL, 0)
#define ADD_TEXT(what, opcode, in, text) add(what, opcode, &(in), sizeof(in), text, sizeof(text))
#define ADD_NAMES(what, opcode, text) add(what, opcode, NULL, 0, text, sizeof(text))

static void add_names(void)
{
    char name[4096];

    ADD_NAMES("lookup", FUSE_LOOKUP, "name");
    ADD_NAMES("lookup of one letter", FUSE_LOOKUP, "x");
    ADD_NAMES("lookup of nothing", FUSE_LOOKUP, "");
    ADD_NAMES("lookup with a slash", FUSE_LOOKUP, "a/b");
    memset(name, 'n', sizeof(name));
    name[255] = '\0';
    add("lookup of 255 bytes", FUSE_LOOKUP, NULL, 0, name, 256);
    name[255] = 'n';
    name[4095] = '\0';
    add("lookup of 4095 bytes", FUSE_LOOKUP, NULL, 0, name, 4096);
    add("lookup without a NUL", FUSE_LOOKUP, NULL, 0, "name", 4);
    add("lookup of two names", FUSE_LOOKUP, NULL, 0, "a\0b", 4);
    ADD_NAMES("unlink", FUSE_UNLINK, "gone");
    ADD_NAMES("rmdir", FUSE_RMDIR, "gone too");
    add("symlink", FUSE_SYMLINK, NULL, 0, "link\0target/of it", 18);
    add("symlink without a target", FUSE_SYMLINK, NULL, 0, "link", 5);
    ADD_NAMES("removexattr", FUSE_REMOVEXATTR, "user.with/slash");
    add("readlink", FUSE_READLINK, NULL, 0, NULL, 0);
    add("statfs", FUSE_STATFS, NULL, 0, NULL, 0);
    add("destroy", FUSE_DESTROY, NULL, 0, NULL, 0);
}

static void add_nodes(void)
{
    struct fuse_getattr_in getattr = { .getattr_flags = FUSE_GETATTR_FH, .fh = 11 };
    struct fuse_getattr_in plain = { .fh = 12 };
    struct fuse_setattr_in setattr = { .valid = 0xfff,
                                       .fh = 3,
                                       .size = 1u << 20,
                                       .lock_owner = 4,
                                       .atime = 5,
                                       .mtime = 6,
                                       .ctime = 7,
                                       .atimensec = 8,
                                       .mtimensec = 9,
                                       .ctimensec = 10,
                                       .mode = 0100644,
                                       .uid = 11,
                                       .gid = 12 };
    struct fuse_mknod_in mknod = { .mode = S_IFCHR | 0600, .rdev = 0x103, .umask = 022 };
    struct fuse_mkdir_in mkdir = { .mode = 0755, .umask = 027 };
    struct fuse_rename_in rename = { .newdir = 77 };
    struct fuse_rename2_in rename2 = { .newdir = 78, .flags = 2 };
    struct fuse_link_in link = { .oldnodeid = 79 };
    struct fuse_access_in access = { .mask = 5 };

    ADD("getattr", FUSE_GETATTR, plain);
    ADD("getattr of a handle", FUSE_GETATTR, getattr);
    ADD("setattr", FUSE_SETATTR, setattr);
    ADD_TEXT("mknod", FUSE_MKNOD, mknod, "device");
    ADD_TEXT("mkdir", FUSE_MKDIR, mkdir, "dir");
    add("rename", FUSE_RENAME, &rename, sizeof(rename), "old\0new", 8);
    add("rename2", FUSE_RENAME2, &rename2, sizeof(rename2), "old\0new name", 13);
    ADD_TEXT("link", FUSE_LINK, link, "another");
    ADD("access", FUSE_ACCESS, access);
}

static void add_files(void)
{
    struct fuse_open_in open = { .flags = O_RDWR | O_APPEND };
    struct fuse_create_in create = { .flags = O_WRONLY | O_EXCL, .mode = 0100640, .umask = 2 };
    struct fuse_release_in release = { .fh = 1, .flags = 2, .release_flags = FUSE_RELEASE_FLUSH, .lock_owner = 3 };
    struct fuse_flush_in flush = { .fh = 4, .lock_owner = 5 };
    struct fuse_fsync_in fsync = { .fh = 6, .fsync_flags = 1 };
    struct fuse_lseek_in lseek = { .fh = 7, .offset = 8, .whence = SEEK_HOLE };
    struct fuse_fallocate_in fallocate = { .fh = 9, .offset = 10, .length = 11, .mode = 3 };
    struct fuse_copy_file_range_in copy = {
        .fh_in = 1, .off_in = 2, .nodeid_out = 3, .fh_out = 4, .off_out = 5, .len = 6
    };
    struct fuse_lk_in lk = { .fh = 1, .owner = 2, .lk = { .start = 3, .end = 4, .type = 1, .pid = 5 } };
    struct fuse_poll_in poll = { .fh = 1, .kh = 2, .events = 5 };
    struct fuse_bmap_in bmap = { .block = 1, .blocksize = 4096 };

    ADD("open", FUSE_OPEN, open);
    ADD("opendir", FUSE_OPENDIR, open);
    ADD_TEXT("create", FUSE_CREATE, create, "fresh");
    ADD_TEXT("tmpfile", FUSE_TMPFILE, create, "/");
    ADD("release", FUSE_RELEASE, release);
    ADD("releasedir", FUSE_RELEASEDIR, release);
    ADD("flush", FUSE_FLUSH, flush);
    ADD("fsync", FUSE_FSYNC, fsync);
    ADD("fsyncdir", FUSE_FSYNCDIR, fsync);
    ADD("lseek", FUSE_LSEEK, lseek);
    ADD("fallocate", FUSE_FALLOCATE, fallocate);
    ADD("copy_file_range", FUSE_COPY_FILE_RANGE, copy);
    ADD("copy_file_range of 64 bits", FUSE_COPY_FILE_RANGE_64, copy);
    ADD("getlk", FUSE_GETLK, lk);
    ADD("setlk", FUSE_SETLK, lk);
    ADD("poll", FUSE_POLL, poll);
    ADD("bmap", FUSE_BMAP, bmap);
}

static void add_data(void)
{
    static const uint32_t sizes[] = { 0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 131072, MIB };
    uint8_t *data = malloc(MIB);

    cr_assert_not_null(data);
    fs_fill(1, 0, data, MIB);
    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        struct fuse_read_in in = { .fh = 1,
                                   .offset = 4096 * i,
                                   .size = sizes[i],
                                   .read_flags = FUSE_READ_LOCKOWNER,
                                   .lock_owner = 9,
                                   .flags = O_RDWR };
        struct fuse_write_in out = { .fh = 2,
                                     .offset = 512 * i,
                                     .size = sizes[i],
                                     .write_flags = FUSE_WRITE_CACHE,
                                     .lock_owner = 8,
                                     .flags = O_WRONLY };

        ADD("read", FUSE_READ, in);
        add("write", FUSE_WRITE, &out, sizeof(out), data, sizes[i]);
        out.size++;
        add("write of less than it says", FUSE_WRITE, &out, sizeof(out), data, sizes[i] < MIB ? sizes[i] : MIB - 1);
    }
    for (size_t i = 0; i < 4; i++) {
        struct fuse_read_in in = { .fh = 3, .offset = i, .size = 1000u * (uint32_t)(i * i) };

        ADD("readdir", FUSE_READDIR, in);
        ADD("readdirplus", FUSE_READDIRPLUS, in);
    }
    free(data);
}

static void add_xattrs(bool extended)
{
    static const uint32_t sizes[] = { 0, 1, 100, 65536 };
    char name[256];
    char *rest = calloc(1, sizeof(name) + 65536);

    cr_assert_not_null(rest);
    memset(name, 'a', sizeof(name));
    memcpy(name, "user.", 5);
    name[255] = '\0';
    for (size_t i = 0; i < MF__ARRAY_SIZE(sizes); i++) {
        struct fuse_getxattr_in get = { .size = sizes[i] };
        struct fuse_setxattr_in set = { .size = sizes[i], .flags = 1, .setxattr_flags = extended ? 1 : 0 };
        size_t head = extended ? sizeof(set) : FUSE_COMPAT_SETXATTR_IN_SIZE;

        ADD_TEXT("getxattr", FUSE_GETXATTR, get, "security.capability");
        add("getxattr of a long name", FUSE_GETXATTR, &get, sizeof(get), name, sizeof(name));
        ADD("listxattr", FUSE_LISTXATTR, get);
        memcpy(rest, "user.x", 7);
        fs_fill(5, 0, rest + 7, sizes[i]);
        add("setxattr", FUSE_SETXATTR, &set, head, rest, 7 + sizes[i]);
        memcpy(rest, name, sizeof(name));
        fs_fill(6, 0, rest + sizeof(name), sizes[i]);
        add("setxattr of a long name", FUSE_SETXATTR, &set, head, rest, sizeof(name) + sizes[i]);
    }
    free(rest);
}

/* A group and a security context behind the names. */
static void add_extensions(void)
{
    static const uint32_t area[] = { 16, FUSE_EXT_GROUPS, 1, 1000, 8, 0 };
    struct fuse_mkdir_in mkdir = { .mode = 0700, .umask = 2 };
    struct fuse_create_in create = { .mode = 0100600, .umask = 2 };
    struct fuse_mknod_in mknod = { .mode = 0100600, .umask = 2 };

    add_ext("mkdir with extensions", FUSE_MKDIR, &mkdir, sizeof(mkdir), "dd", 3, area, sizeof(area));
    add_ext("create with extensions", FUSE_CREATE, &create, sizeof(create), "c", 2, area, sizeof(area));
    add_ext("mknod with extensions", FUSE_MKNOD, &mknod, sizeof(mknod), "node", 5, area, sizeof(area));
    add_ext("symlink with extensions", FUSE_SYMLINK, NULL, 0, "s\0t", 4, area, sizeof(area));
}

static void add_strangers(void)
{
    ADD_NAMES("no opcode at all", 7, "what");
    ADD_NAMES("a future opcode", 60, "what");
    ADD_NAMES("an impossible opcode", 4096, "what");
}

static void make_vectors(bool extended)
{
    add_names();
    add_nodes();
    add_files();
    add_data();
    add_xattrs(extended);
    if (extended)
        add_extensions();
    add_strangers();
}

static void free_vectors(void)
{
    while (n_vectors)
        free(vectors[--n_vectors].body);
}

/* ---- what happens ---------------------------------------------------------------------------------------- */

/* What one channel's handler and clients saw, in order. */
struct account {
    uint8_t *text;
    size_t len;
    pthread_mutex_t lock;
};

static struct account *now; /* the one that is written */

static void note(const void *data, size_t len)
{
    pthread_mutex_lock(&now->lock);
    cr_assert_leq(now->len + len, LOG_ROOM);
    memcpy(now->text + now->len, data, len);
    now->len += len;
    pthread_mutex_unlock(&now->lock);
}

static void note_number(uint64_t n)
{
    note(&n, sizeof(n));
}

static void note_bytes(const void *data, size_t len)
{
    note_number(len);
    if (len)
        note(data, len);
}

static void note_call(const struct mf_call *c)
{
    struct mf_call plain = *c;

    note_bytes(c->name, c->name ? c->name_len + 1u : 0);
    note_bytes(c->name2, c->name2 ? c->name2_len + 1u : 0);
    note_bytes(c->data, c->data ? c->length : 0);
    /* What may differ: addresses, the request's and the reader's numbers, and how much room there is to spare. */
    plain.name = plain.name2 = NULL;
    plain.data = NULL;
    plain.buf = NULL;
    plain.req = NULL;
    plain.session = NULL;
    plain.unique = plain.reader = 0;
    plain.buf_size = 0;
    note(&plain, sizeof(plain));
    if ((c->op == MF_OP_READ || c->op == MF_OP_READDIR || c->op == MF_OP_READDIRPLUS) &&
        c->length <= rig.s->terms.max_write)
        cr_expect_geq(c->buf_size, c->length, "no room for %llu bytes", (unsigned long long)c->length);
    if (c->op == MF_OP_WRITE && c->length)
        cr_expect_eq((uintptr_t)c->data % 4096, 0, "data that are not aligned");
}

/* ---- answers --------------------------------------------------------------------------------------------- */

enum manner {
    GOOD,       /* as it should be */
    IN_PLACE,   /* data in call->buf */
    AN_ERROR,   /* -errno */
    NO_ERRNO,   /* a number that is none */
    TOO_LONG,   /* a byte more than was asked for */
    NOTHING,    /* an answer that was never filled in */
    WRONG_KIND, /* data where there should be an entry, an entry where there should be data */
    LATE,       /* from another thread */
    SILENT,     /* returns as if somebody had answered */
    MANNERS
};

static enum manner manner;
static uint8_t *payload;

static bool wants_data(const struct mf_call *c)
{
    return c->op == MF_OP_READ || c->op == MF_OP_READDIR || c->op == MF_OP_READDIRPLUS || c->op == MF_OP_READLINK ||
           c->op == MF_OP_GETXATTR || c->op == MF_OP_LISTXATTR;
}

static int32_t answer_data(struct mf_call *c, bool in_place, uint64_t more)
{
    uint64_t length = c->op == MF_OP_READLINK ? 21 : c->length;

    c->answer.data_len = length + more;
    c->answer.data = payload;
    if (c->length == 0 && c->op != MF_OP_READLINK) {
        c->answer.data = NULL;
        c->answer.data_len = 0;
        c->answer.value = 4711;
    }
    if (in_place && c->answer.data) {
        c->answer.data = NULL;
        if (c->answer.data_len > c->buf_size)
            return -EOVERFLOW;
        memcpy(c->buf, payload, c->answer.data_len);
    }
    return 0;
}

static int32_t answer_well(struct mf_call *c)
{
    static const struct mf_statfs st = { .size = sizeof(st),
                                         .blocks = 1,
                                         .bfree = 2,
                                         .bavail = 3,
                                         .files = 4,
                                         .ffree = 5,
                                         .bsize = 4096,
                                         .namelen = 255,
                                         .frsize = 512 };

    c->answer.node = 1000;
    c->answer.generation = 3;
    c->answer.entry_timeout_ns = 1500000001;
    c->answer.attr_timeout_ns = 2500000002;
    c->answer.attr = fs_attr(c->op == MF_OP_MKDIR ? MF_ROOT : FS_FILE0 + 3);
    c->answer.attr.mode = c->op == MF_OP_MKDIR ? S_IFDIR | 0755 : c->answer.attr.mode;
    c->answer.fh = 0x1122334455667788;
    c->answer.open_flags = MF_OPEN_DIRECT_IO;
    c->answer.value = c->length;
    if (c->op == MF_OP_STATFS)
        c->answer.data = &st;
    return 0;
}

struct late {
    struct mf_req *req;
    uint32_t op;
    uint64_t length;
};

static void *answer_late(void *arg)
{
    struct late *l = arg;
    struct mf_attr attr = fs_attr(FS_FILE0 + 9);
    struct mf_entry e = fs_entry(FS_FILE0 + 9);
    int rc;

    switch (l->op) {
    case MF_OP_LOOKUP:
    case MF_OP_MKNOD:
    case MF_OP_LINK:
    case MF_OP_SYMLINK: rc = mf_reply_entry(l->req, &e); break;
    case MF_OP_GETATTR:
    case MF_OP_SETATTR: rc = mf_reply_attr(l->req, &attr, 77); break;
    case MF_OP_READ: rc = mf_reply_data(l->req, payload, l->length); break;
    case MF_OP_WRITE: rc = mf_reply_write(l->req, l->length); break;
    default: rc = mf_reply_err(l->req, ELOOP); break;
    }
    cr_expect_eq(rc, 0, "operation %u: %d", l->op, rc);
    free(l);
    return NULL;
}

static int32_t keep_for_later(struct mf_call *c)
{
    struct late *l = malloc(sizeof(*l));
    pthread_t thread;

    cr_assert_not_null(l);
    *l = (struct late){ .req = c->req, .op = c->op, .length = c->length };
    mf_req_defer(c->req);
    cr_assert_eq(pthread_create(&thread, NULL, answer_late, l), 0);
    pthread_join(thread, NULL);
    return MF_ANSWER_LATER;
}

static int32_t script(struct mf_call *c, struct fs_rig *r)
{
    (void)r;
    note_call(c);
    if (c->op == MF_OP_FORGET)
        return 0;
    switch (manner) {
    case AN_ERROR: return -EOWNERDEAD;
    case NO_ERRNO: return -5000;
    case NOTHING: return 0;
    case LATE: return keep_for_later(c);
    case SILENT: return MF_ANSWERED;
    case WRONG_KIND:
        if (wants_data(c))
            return mf_reply_entry(c->req, &(struct mf_entry){ .size = sizeof(struct mf_entry) }) < 0 ? MF_ANSWERED : 0;
        return mf_reply_data(c->req, payload, 10) < 0 ? MF_ANSWERED : 0;
    default: break;
    }
    if (wants_data(c))
        return answer_data(c, manner == IN_PLACE, manner == TOO_LONG);
    answer_well(c);
    c->answer.value += manner == TOO_LONG;
    return 0;
}

/* ---- both channels --------------------------------------------------------------------------------------- */

static void send_one(const struct vector *v, size_t len)
{
    static uint8_t out[MIB + 4096];
    struct mf__vk_ask ask = { .opcode = v->opcode, .node = 42, .out = out, .out_room = sizeof(out) };
    int rc;

    if (len)
        mf__vk_add(&ask, v->body, len);
    if (len == v->len)
        ask.ext_len = v->ext;
    rc = mf__vk_ask_raw(rig.vk, &ask, false);
    note_number((uint64_t)rc);
    note_bytes(out, rc == 0 ? ask.out_len : 0);
}

struct run {
    uint32_t queues, readers;
    bool pool, extended;
    uint32_t max_write;
};

static void begin_run(const struct run *run)
{
    fs_init(&rig);
    rig.kernel.queues = run->queues;
    rig.kernel.uid = 12;
    rig.kernel.gid = 34;
    rig.kernel.pid = 56;
    rig.opts.readers = run->readers;
    rig.opts.acl = MF_ACL_ALL;
    rig.opts.uring = run->queues ? MF_URING_REQUIRE : MF_URING_OFF;
    rig.opts.max_write = run->max_write;
    if (run->extended)
        rig.opts.want = FUSE_SETXATTR_EXT | FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP;
    rig.implemented = FS_ALL_OPS;
    rig.script = script;
    fs_run(&rig);
}

static void begin_account(struct account *a)
{
    memset(a, 0, sizeof(*a));
    a->text = malloc(LOG_ROOM);
    cr_assert_not_null(a->text);
    pthread_mutex_init(&a->lock, NULL);
    now = a;
}

typedef void (*sender)(const struct vector *v);

static void send_whole(const struct vector *v)
{
    send_one(v, v->len);
}

/* Each prefix of a request, and what is longer than it should be. */
static void send_cut(const struct vector *v)
{
    if (v->len > 300 || v->ext)
        return;
    for (size_t len = 0; len < v->len; len++)
        send_one(v, len);
}

static void run_channel(const struct run *run, enum manner how, sender send, struct account *a, size_t *marks)
{
    begin_account(a);
    manner = how;
    begin_run(run);
    cr_assert_eq(fs_info(&rig).transport, run->queues ? MF_TRANSPORT_URING : MF_TRANSPORT_MEMORY);
    for (unsigned i = 0; i < n_vectors; i++) {
        marks[i] = a->len;
        send(&vectors[i]);
    }
    marks[n_vectors] = a->len;
    if (run->queues)
        cr_expect_gt(ring_delivered(&rig), 0);
    cr_expect_eq(mf_vkernel_bad_replies(rig.vk), 0, "answers were refused");
    fs_end(&rig);
}

static const struct run device = { .readers = 1 };

static void compare_runs(const struct run *one, const struct run *other, enum manner how, sender send)
{
    static size_t marks[2][MAX_VECTORS + 1];
    struct account a[2];

    run_channel(one, how, send, &a[0], marks[0]);
    run_channel(other, how, send, &a[1], marks[1]);
    for (unsigned i = 0; i < n_vectors; i++) {
        size_t len[2] = { marks[0][i + 1] - marks[0][i], marks[1][i + 1] - marks[1][i] };

        cr_expect_eq(len[0], len[1], "vector %u (%s), manner %d: %zu and %zu bytes", i, vectors[i].what, how, len[0],
                     len[1]);
        cr_expect(len[0] != len[1] || memcmp(a[0].text + marks[0][i], a[1].text + marks[1][i], len[0]) == 0,
                  "vector %u (%s, %zu bytes), manner %d differs", i, vectors[i].what, vectors[i].len, how);
    }
    free(a[0].text);
    free(a[1].text);
}

static void compare(bool extended, uint32_t max_write, enum manner how, sender send)
{
    struct run one = device;
    struct run other = { .queues = 3, .readers = 2, .extended = extended, .max_write = max_write };

    one.extended = extended;
    one.max_write = max_write;
    payload = malloc(MIB + 1);
    cr_assert_not_null(payload);
    fs_fill(9, 0, payload, MIB + 1);
    make_vectors(extended);
    compare_runs(&one, &other, how, send);
    free_vectors();
    free(payload);
}

#define VECTOR_TEST(name, how)              \
    Test(ring_vectors, name)                \
    {                                       \
        compare(false, 0, how, send_whole); \
        compare(true, 0, how, send_whole);  \
    }

VECTOR_TEST(good_answers, GOOD)
VECTOR_TEST(answers_in_place, IN_PLACE)
VECTOR_TEST(errors, AN_ERROR)
VECTOR_TEST(numbers_that_are_no_errno, NO_ERRNO)
VECTOR_TEST(answers_that_are_too_long, TOO_LONG)
VECTOR_TEST(answers_that_were_not_filled_in, NOTHING)
VECTOR_TEST(answers_of_a_wrong_kind, WRONG_KIND)
VECTOR_TEST(late_answers, LATE)
VECTOR_TEST(no_answer, SILENT)

Test(ring_vectors, truncated_requests)
{
    compare(false, 0, GOOD, send_cut);
    compare(true, 0, GOOD, send_cut);
}

/* A mount with small requests: larger ones are not sent, but their errors are the same. */
Test(ring_vectors, small_requests)
{
    compare(false, 131072, IN_PLACE, send_cut);
}

/* Whoever runs twice gets the same twice: what differs above is the channel's doing. */
Test(ring_vectors, the_accounts_are_reproducible)
{
    payload = malloc(MIB + 1);
    cr_assert_not_null(payload);
    fs_fill(9, 0, payload, MIB + 1);
    make_vectors(false);
    compare_runs(&device, &device, GOOD, send_whole);
    free_vectors();
    free(payload);
}
