/* SPDX-License-Identifier: MIT */
/* What the virtual kernel's client makes of programs' calls, against a small filesystem that speaks the protocol. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "test_vkernel.h"

TestSuite(vkernel_client, .timeout = 30);

#define NODES 32
#define NAME 64
#define FIRST_FH 100

struct inode {
    uint64_t parent; /* 0 = free, but for the root */
    uint32_t mode;
    uint32_t open;   /* not released */
    int64_t lookups; /* not forgotten */
    char name[NAME];
    char target[NAME];
    char xname[NAME];
    char xvalue[NAME];
    uint8_t *data;
    uint64_t size;
};

struct fs {
    struct pair p;
    pthread_t thread;
    struct inode node[NODES];
    uint64_t node_time; /* seconds that attributes are valid */
    uint32_t fopen_flags;
    int lie_size;           /* attributes say: 1 = empty, 2 = half of it */
    uint32_t short_write;   /* most bytes of one WRITE */
    int fail[64];           /* errno by opcode; before anything is done */
    uint32_t count[64];     /* requests by opcode */
    uint64_t plus;          /* READDIRPLUS with nodes */
    const uint8_t *raw_dir; /* what READDIR answers, once */
    size_t raw_dir_len;
    uint8_t last[64][MAX_WRITE + 4096]; /* last request by opcode: args, then body, of messages that fit */
    uint32_t last_len[64];
    uint16_t last_ext[64];
    int wrong; /* answers that were refused */
};

/* ---- the filesystem ----------------------------------------------------------------------------- */

struct call {
    struct fs *fs;
    struct end *e;
    const struct mf__msg *msg;
    struct inode *node;
    const char *name;
    const char *name2;
    union {
        struct fuse_setattr_in setattr;
        struct fuse_mknod_in mknod;
        struct fuse_mkdir_in mkdir;
        struct fuse_rename2_in rename;
        struct fuse_link_in link;
        struct fuse_read_in read;
        struct fuse_write_in write;
        struct fuse_setxattr_in setxattr;
        struct fuse_getxattr_in getxattr;
        struct fuse_open_in open;
        struct fuse_create_in create;
        struct fuse_forget_in forget;
        struct fuse_batch_forget_in batch;
    } in;
};

static void answer(struct call *c, int error, const void *body, size_t len)
{
    if (end_answer(c->e, error, body, len) != 0)
        c->fs->wrong++;
}

static uint64_t id_of(const struct call *c, const struct inode *n)
{
    return (uint64_t)(n - c->fs->node);
}

static struct inode *child(struct call *c, uint64_t parent, const char *name)
{
    for (size_t i = 2; i < NODES; i++)
        if (c->fs->node[i].parent == parent && strcmp(c->fs->node[i].name, name) == 0)
            return &c->fs->node[i];
    return NULL;
}

static struct inode *new_node(struct call *c, const char *name, uint32_t mode)
{
    for (size_t i = 2; i < NODES; i++) {
        struct inode *n = &c->fs->node[i];

        if (n->parent == 0 && n->lookups == 0 && n->open == 0) {
            free(n->data);
            *n = (struct inode){ .parent = c->msg->hdr.nodeid, .mode = mode };
            snprintf(n->name, sizeof(n->name), "%s", name);
            return n;
        }
    }
    return NULL;
}

static struct fuse_attr attr_of(const struct call *c, const struct inode *n)
{
    return (struct fuse_attr){ .ino = id_of(c, n),
                               .mode = n->mode,
                               .size = c->fs->lie_size == 1 ? 0
                                       : c->fs->lie_size    ? n->size / 2
                                                            : n->size,
                               .nlink = 1 };
}

static struct fuse_entry_out entry_of(const struct call *c, struct inode *n)
{
    n->lookups++;
    return (struct fuse_entry_out){ .nodeid = id_of(c, n), .attr_valid = c->fs->node_time, .attr = attr_of(c, n) };
}

static void answer_entry(struct call *c, struct inode *n)
{
    struct fuse_entry_out out;

    if (!n) {
        answer(c, -ENOENT, NULL, 0);
        return;
    }
    out = entry_of(c, n);
    answer(c, 0, &out, sizeof(out));
}

static void answer_attr(struct call *c)
{
    struct fuse_attr_out out = { .attr = attr_of(c, c->node) };

    answer(c, 0, &out, sizeof(out));
}

static struct fuse_open_out open_node(struct call *c, struct inode *n)
{
    n->open++;
    return (struct fuse_open_out){ .fh = FIRST_FH + id_of(c, n), .open_flags = c->fs->fopen_flags };
}

static void set_size(struct inode *n, uint64_t size)
{
    if (size > n->size) {
        n->data = realloc(n->data, size);
        memset(n->data + n->size, 0, size - n->size);
    }
    n->size = size;
}

static void do_setattr(struct call *c)
{
    if (c->in.setattr.valid & FATTR_SIZE)
        set_size(c->node, c->in.setattr.size);
    if (c->in.setattr.valid & FATTR_MODE)
        c->node->mode = c->in.setattr.mode;
    answer_attr(c);
}

static void do_create(struct call *c)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out;
    struct inode *n = new_node(c, c->name, c->in.create.mode);

    out.entry = entry_of(c, n);
    out.open = open_node(c, n);
    answer(c, 0, &out, sizeof(out));
}

static void do_open(struct call *c)
{
    struct fuse_open_out out = open_node(c, c->node);

    if (c->in.open.flags & O_TRUNC)
        set_size(c->node, 0);
    answer(c, 0, &out, sizeof(out));
}

static void do_read(struct call *c)
{
    uint64_t at = c->in.read.offset < c->node->size ? c->in.read.offset : c->node->size;
    uint64_t n = c->node->size - at < c->in.read.size ? c->node->size - at : c->in.read.size;

    answer(c, 0, n ? c->node->data + at : NULL, n);
}

static void do_write(struct call *c)
{
    uint32_t n = c->in.write.size;
    struct fuse_write_out out;

    if (c->fs->short_write && n > c->fs->short_write)
        n = c->fs->short_write;
    if (c->in.write.offset + n > c->node->size)
        set_size(c->node, c->in.write.offset + n);
    memcpy(c->node->data + c->in.write.offset, c->msg->body, n);
    out = (struct fuse_write_out){ .size = n };
    answer(c, 0, &out, sizeof(out));
}

/* Entry i of a directory: "." and "..", then the nodes; a cookie is the index after it. */
static const char *entry_name(struct call *c, uint64_t i, uint64_t *node)
{
    *node = i < 2 ? 1 : i;
    if (i < 2)
        return i ? ".." : ".";
    return c->fs->node[i].parent == c->msg->hdr.nodeid ? c->fs->node[i].name : NULL;
}

static void do_readdir(struct call *c, bool plus)
{
    uint64_t len = 0, node;
    uint8_t buf[4096];

    for (uint64_t i = c->in.read.offset; i < NODES; i++) {
        const char *name = entry_name(c, i, &node);
        struct mf_entry e = { .size = sizeof(e) };
        int64_t n;

        if (!name)
            continue;
        if (plus && i >= 2 && c->fs->plus) {
            e.node = node;
            c->fs->node[node].lookups++;
        }
        e.attr.mode = c->fs->node[node].mode;
        e.attr.ino = node;
        n = plus ? mf__put_direntplus(buf + len, sizeof(buf) - len, name, strlen(name), &e, i + 1)
                 : mf__put_dirent(buf + len, sizeof(buf) - len, name, strlen(name), node, DT_REG, i + 1);
        cr_assert_gt(n, 0);
        len += (uint64_t)n;
        if (i % 3 == 2)
            break; /* in several pieces */
    }
    answer(c, 0, buf, len);
}

static void do_rename(struct call *c)
{
    struct inode *n = child(c, c->msg->hdr.nodeid, c->name);
    struct inode *over = child(c, c->in.rename.newdir, c->name2);

    if (over)
        over->parent = 0;
    n->parent = c->in.rename.newdir;
    snprintf(n->name, sizeof(n->name), "%s", c->name2);
    answer(c, 0, NULL, 0);
}

static void do_getxattr(struct call *c, const char *value, size_t len)
{
    struct fuse_getxattr_out out = { .size = (uint32_t)len };

    if (!*c->node->xname)
        answer(c, -ENODATA, NULL, 0);
    else if (c->in.getxattr.size == 0)
        answer(c, 0, &out, sizeof(out));
    else if (len > c->in.getxattr.size)
        answer(c, -ERANGE, NULL, 0);
    else
        answer(c, 0, value, len);
}

static void do_setxattr(struct call *c)
{
    snprintf(c->node->xname, NAME, "%s", c->name);
    snprintf(c->node->xvalue, NAME, "%.*s", (int)c->in.setxattr.size, c->name + strlen(c->name) + 1);
    answer(c, 0, NULL, 0);
}

static void do_forget(struct call *c)
{
    if (c->msg->hdr.opcode == FUSE_FORGET)
        c->node->lookups -= (int64_t)c->in.forget.nlookup;
    for (uint32_t i = 0; c->msg->hdr.opcode == FUSE_BATCH_FORGET && i < c->in.batch.count; i++) {
        struct fuse_forget_one one;

        memcpy(&one, c->msg->body + i * sizeof(one), sizeof(one));
        c->fs->node[one.nodeid].lookups -= (int64_t)one.nlookup;
    }
}

static void do_make(struct call *c, uint32_t mode)
{
    struct inode *n = new_node(c, c->name, mode);

    if (S_ISLNK(mode))
        snprintf(n->target, sizeof(n->target), "%s", c->name2);
    answer_entry(c, n);
}

static void do_remove(struct call *c)
{
    child(c, c->msg->hdr.nodeid, c->name)->parent = 0;
    answer(c, 0, NULL, 0);
}

static void do_link(struct call *c)
{
    struct inode *old = &c->fs->node[c->in.link.oldnodeid];
    struct inode *n = new_node(c, c->name, old->mode);

    (void)n; /* a name of its own is enough here */
    answer_entry(c, old);
}

static void do_statfs(struct call *c)
{
    struct fuse_statfs_out out = {
        .st = { .blocks = 1, .bfree = 2, .bavail = 3, .files = 4, .ffree = 5, .bsize = 6, .namelen = 7, .frsize = 8 }
    };

    answer(c, 0, &out, sizeof(out));
}

static void do_xattr(struct call *c)
{
    switch (c->msg->hdr.opcode) {
    case FUSE_SETXATTR: do_setxattr(c); break;
    case FUSE_GETXATTR: do_getxattr(c, c->node->xvalue, strlen(c->node->xvalue)); break;
    case FUSE_LISTXATTR: do_getxattr(c, c->node->xname, strlen(c->node->xname) + 1); break;
    default:
        c->node->xname[0] = 0;
        answer(c, 0, NULL, 0);
        break;
    }
}

static void do_data(struct call *c)
{
    switch (c->msg->hdr.opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR: do_open(c); break;
    case FUSE_CREATE: do_create(c); break;
    case FUSE_READ: do_read(c); break;
    case FUSE_WRITE: do_write(c); break;
    case FUSE_READDIR: do_readdir(c, false); break;
    case FUSE_READDIRPLUS: do_readdir(c, true); break;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        c->node->open--;
        answer(c, 0, NULL, 0);
        break;
    default: do_xattr(c); break;
    }
}

static void serve(struct call *c)
{
    switch (c->msg->hdr.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET: do_forget(c); break;
    case FUSE_LOOKUP: answer_entry(c, child(c, c->msg->hdr.nodeid, c->name)); break;
    case FUSE_GETATTR: answer_attr(c); break;
    case FUSE_SETATTR: do_setattr(c); break;
    case FUSE_READLINK: answer(c, 0, c->node->target, strlen(c->node->target)); break;
    case FUSE_SYMLINK: do_make(c, S_IFLNK | 0777); break;
    case FUSE_MKNOD: do_make(c, c->in.mknod.mode); break;
    case FUSE_MKDIR: do_make(c, S_IFDIR | c->in.mkdir.mode); break;
    case FUSE_LINK: do_link(c); break;
    case FUSE_UNLINK:
    case FUSE_RMDIR: do_remove(c); break;
    case FUSE_RENAME:
    case FUSE_RENAME2: do_rename(c); break;
    case FUSE_STATFS: do_statfs(c); break;
    case FUSE_ACCESS:
    case FUSE_FLUSH: answer(c, 0, NULL, 0); break;
    default: do_data(c); break;
    }
}

static void record(struct call *c)
{
    uint32_t op = c->msg->hdr.opcode;

    c->fs->count[op]++;
    c->fs->last_len[op] = c->msg->args_len + c->msg->body_len;
    c->fs->last_ext[op] = (uint16_t)c->msg->ext_len;
    if (c->msg->args_len)
        memcpy(c->fs->last[op], c->msg->args, c->msg->args_len);
    if (c->msg->body_len)
        memcpy(c->fs->last[op] + c->msg->args_len, c->msg->body, c->msg->body_len);
}

static void take_call(struct fs *fs, struct end *e)
{
    struct call c = { .fs = fs, .e = e, .msg = &e->io.msg };
    uint32_t op = c.msg->hdr.opcode;
    size_t args = c.msg->args_len < sizeof(c.in) ? c.msg->args_len : sizeof(c.in);

    if (args)
        memcpy(&c.in, c.msg->args, args);
    c.node = &fs->node[c.msg->hdr.nodeid < NODES ? c.msg->hdr.nodeid : 0];
    c.name = (const char *)c.msg->body;
    if (op == FUSE_RENAME || op == FUSE_RENAME2 || op == FUSE_SYMLINK)
        c.name2 = c.name + strlen(c.name) + 1;
    record(&c);
    if (fs->fail[op])
        answer(&c, -fs->fail[op], NULL, 0);
    else if (op == FUSE_READDIR && fs->raw_dir) {
        answer(&c, 0, fs->raw_dir, fs->raw_dir_len);
        fs->raw_dir = NULL;
    } else
        serve(&c);
}

static void *fs_main(void *arg)
{
    struct fs *fs = arg;

    while (end_read(&fs->p.end) == 0)
        take_call(fs, &fs->p.end);
    return NULL;
}

static struct fs *fs_start(uint64_t flags)
{
    struct fs *fs = calloc(1, sizeof(*fs));

    cr_assert_not_null(fs);
    fs->node[1].mode = S_IFDIR | 0755;
    fs->node_time = 1;
    pair_open(&fs->p, flags);
    cr_assert_eq(pthread_create(&fs->thread, NULL, fs_main, fs), 0);
    return fs;
}

/* Let forgets and the like be read. */
static void fs_settle(struct fs *fs)
{
    while (mf_vkernel_pending(fs->p.vk) > 0)
        sched_yield();
    /* The last message was read, but may not be digested: the answer to another one says that it is. */
    cr_assert_eq(mf_client_statfs(fs->p.vk, NULL), -EINVAL);
}

/* What every test ends with: nothing wrong, nothing open, nothing remembered, nothing left. */
static void fs_stop(struct fs *fs)
{
    fs_settle(fs);
    cr_expect_eq(mf_vkernel_bad_replies(fs->p.vk), 0);
    cr_expect_eq(fs->wrong, 0);
    for (size_t i = 0; i < NODES; i++) {
        cr_expect_eq(fs->node[i].lookups, 0, "node %zu has %d lookups", i, (int)fs->node[i].lookups);
        cr_expect_eq(fs->node[i].open, 0, "node %zu is open", i);
    }
    mf_vkernel_unmount(fs->p.vk);
    pthread_join(fs->thread, NULL);
    pair_close(&fs->p);
    for (size_t i = 0; i < NODES; i++)
        free(fs->node[i].data);
    free(fs);
}

/* A structure out of the last request with this opcode. */
#define LAST(fs, opcode, type) (*(const type *)(const void *)(fs)->last[opcode])

static int put(struct fs *fs, const char *path, const char *text)
{
    return mf_client_write_file(fs->p.vk, path, text, strlen(text), 0666);
}

static int get(struct fs *fs, const char *path, char *text, uint64_t room)
{
    uint64_t len = room - 1;
    int rc = mf_client_read_file(fs->p.vk, path, text, &len);

    text[rc == 0 ? len : 0] = 0;
    return rc;
}

/* ---- ENOSYS ------------------------------------------------------------------------------------- */

/* What a caller gets the first time and ever after, and how often the filesystem is asked in three tries. */
static const struct {
    uint32_t opcode;
    int result;
    uint32_t asked;
    uint32_t out;
} lacking[] = {
    { FUSE_LOOKUP, -ENOSYS, 3, 0 },
    { FUSE_GETATTR, -ENOSYS, 3, 0 },
    { FUSE_SETATTR, -ENOSYS, 3, 0 },
    { FUSE_READLINK, -ENOSYS, 3, 0 },
    { FUSE_SYMLINK, -ENOSYS, 3, 0 },
    { FUSE_MKNOD, -ENOSYS, 3, 0 },
    { FUSE_MKDIR, -ENOSYS, 3, 0 },
    { FUSE_UNLINK, -ENOSYS, 3, 0 },
    { FUSE_RMDIR, -ENOSYS, 3, 0 },
    { FUSE_RENAME, -ENOSYS, 3, 0 },
    { FUSE_LINK, -EPERM, 1, 0 },
    { FUSE_OPEN, 0, 1, 16 },
    { FUSE_READ, -ENOSYS, 3, 0 },
    { FUSE_WRITE, -ENOSYS, 3, 0 },
    { FUSE_STATFS, -ENOSYS, 3, 0 },
    { FUSE_FSYNC, 0, 1, 0 },
    { FUSE_SETXATTR, -EOPNOTSUPP, 1, 0 },
    { FUSE_GETXATTR, -EOPNOTSUPP, 1, 0 },
    { FUSE_LISTXATTR, -EOPNOTSUPP, 1, 0 },
    { FUSE_REMOVEXATTR, -EOPNOTSUPP, 1, 0 },
    { FUSE_FLUSH, 0, 1, 0 },
    { FUSE_OPENDIR, 0, 1, 16 },
    { FUSE_READDIR, -ENOSYS, 3, 0 },
    { FUSE_FSYNCDIR, 0, 1, 0 },
    { FUSE_GETLK, -ENOSYS, 3, 0 },
    { FUSE_SETLK, -ENOSYS, 3, 0 },
    { FUSE_SETLKW, -ENOSYS, 3, 0 },
    { FUSE_ACCESS, 0, 1, 0 },
    { FUSE_CREATE, -ENOSYS, 1, 0 },
    { FUSE_BMAP, 0, 1, 8 },
    { FUSE_IOCTL, -ENOTTY, 3, 0 },
    { FUSE_POLL, 0, 1, 8 },
    { FUSE_FALLOCATE, -EOPNOTSUPP, 1, 0 },
    { FUSE_READDIRPLUS, -ENOSYS, 3, 0 },
    { FUSE_RENAME2, -EINVAL, 1, 0 },
    { FUSE_LSEEK, -ENOSYS, 1, 0 },
    { FUSE_COPY_FILE_RANGE, -EOPNOTSUPP, 1, 0 },
    { FUSE_SYNCFS, 0, 1, 0 },
    { FUSE_TMPFILE, -EOPNOTSUPP, 1, 0 },
    { FUSE_STATX, -ENOSYS, 1, 0 },
    { FUSE_COPY_FILE_RANGE_64, -ENOSYS, 1, 0 },
};

Test(vkernel_client, enosys_is_remembered_where_the_kernel_does)
{
    struct fs *fs = fs_start(0);

    for (size_t i = 0; i < MF__ARRAY_SIZE(lacking); i++) {
        uint32_t opcode = lacking[i].opcode;

        fs->fail[opcode] = ENOSYS;
        for (int again = 0; again < 3; again++) {
            uint8_t in[64] = { 0 }, out[288];
            struct mf__vk_ask ask = { .opcode = opcode, .node = 1, .out = out, .out_room = sizeof(out) };

            mf__vk_add(&ask, in, sizeof(in));
            cr_expect_eq(mf__vk_ask(fs->p.vk, &ask), lacking[i].result, "opcode %u", opcode);
            cr_expect_eq(ask.out_len, lacking[i].out, "opcode %u", opcode);
            cr_expect_eq(ask.latched, lacking[i].asked == 1, "opcode %u", opcode);
        }
        cr_expect_eq(fs->count[opcode], lacking[i].asked, "opcode %u", opcode);
        fs->fail[opcode] = 0;
    }
    fs_stop(fs);
}

Test(vkernel_client, other_errors_are_not_remembered)
{
    struct fs *fs = fs_start(0);

    fs->fail[FUSE_ACCESS] = EOPNOTSUPP;
    cr_expect_eq(mf_client_access(fs->p.vk, "/", 4), -EOPNOTSUPP);
    cr_expect_eq(mf_client_access(fs->p.vk, "/", 4), -EOPNOTSUPP);
    cr_expect_eq(fs->count[FUSE_ACCESS], 2);
    fs_stop(fs);
}

Test(vkernel_client, raw_requests_are_always_sent)
{
    struct fuse_access_in in = { .mask = 1 };
    struct fs *fs = fs_start(0);

    fs->fail[FUSE_ACCESS] = ENOSYS;
    cr_expect_eq(mf_client_access(fs->p.vk, "/", 4), 0);
    cr_expect_eq(mf_client_raw(fs->p.vk, FUSE_ACCESS, 1, &in, sizeof(in), NULL, NULL), -ENOSYS);
    cr_expect_eq(fs->count[FUSE_ACCESS], 2);
    fs_stop(fs);
}

Test(vkernel_client, made_up_answers)
{
    struct fuse_open_out open = { .fh = 1 };
    struct fuse_poll_out poll = { .revents = 0 };
    struct mf__vk_ask ask = { .opcode = FUSE_OPENDIR, .node = 1, .out = &open, .out_room = sizeof(open) };
    struct fs *fs = fs_start(0);

    fs->fail[FUSE_OPENDIR] = fs->fail[FUSE_POLL] = ENOSYS;
    cr_expect_eq(mf__vk_ask(fs->p.vk, &ask), 0);
    cr_expect_eq(open.fh, 0);
    cr_expect_eq(open.open_flags, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
    ask = (struct mf__vk_ask){ .opcode = FUSE_POLL, .node = 1, .out = &poll, .out_room = sizeof(poll) };
    cr_expect_eq(mf__vk_ask(fs->p.vk, &ask), 0);
    cr_expect_eq(poll.revents, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
    fs_stop(fs);
}

Test(vkernel_client, without_open_there_is_no_release)
{
    struct fs *fs = fs_start(0);
    uint64_t fh = 99;
    char text[16];

    cr_assert_eq(put(fs, "/a", "text"), 0);
    fs->count[FUSE_RELEASE] = 0;
    fs->fail[FUSE_OPEN] = ENOSYS;
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "text");
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_eq(mf_client_open(fs->p.vk, 2, O_RDONLY, &fh), 0);
    cr_expect_eq(fh, 0);
    cr_expect_eq(mf_client_release(fs->p.vk, 2, fh), 0);
    cr_expect_eq(fs->count[FUSE_OPEN], 1);
    cr_expect_eq(fs->count[FUSE_RELEASE], 0);
    fs_stop(fs);
}

Test(vkernel_client, without_opendir_there_is_no_releasedir)
{
    struct fs *fs = fs_start(0);
    uint64_t len = 16;
    char names[16];

    cr_assert_eq(put(fs, "/a", ""), 0);
    fs->fail[FUSE_OPENDIR] = ENOSYS;
    for (int i = 0; i < 2; i++) {
        len = sizeof(names);
        cr_expect_eq(mf_client_list(fs->p.vk, "/", names, &len), 0);
        cr_expect_eq(len, 2);
    }
    cr_expect_eq(fs->count[FUSE_OPENDIR], 1);
    cr_expect_eq(fs->count[FUSE_RELEASEDIR], 0);
    fs_stop(fs);
}

Test(vkernel_client, without_create_files_are_made_and_opened)
{
    struct fs *fs = fs_start(0);
    char text[16];

    fs->fail[FUSE_CREATE] = ENOSYS;
    cr_expect_eq(put(fs, "/a", "one"), 0);
    cr_expect_eq(put(fs, "/b", "two"), 0);
    cr_expect_eq(fs->count[FUSE_CREATE], 1);
    cr_expect_eq(fs->count[FUSE_MKNOD], 2);
    cr_expect_eq(fs->count[FUSE_OPEN], 2);
    cr_expect_eq(LAST(fs, FUSE_MKNOD, struct fuse_mknod_in).mode, S_IFREG | 0644);
    cr_expect_eq(get(fs, "/b", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "two");
    fs_stop(fs);
}

Test(vkernel_client, flush_is_sent_once_without_it)
{
    struct fs *fs = fs_start(0);

    fs->fail[FUSE_FLUSH] = ENOSYS;
    cr_expect_eq(put(fs, "/a", "one"), 0);
    cr_expect_eq(put(fs, "/a", "two"), 0);
    cr_expect_eq(fs->count[FUSE_FLUSH], 1);
    cr_expect_eq(fs->count[FUSE_RELEASE], 2);
    fs_stop(fs);
}

/* ---- files -------------------------------------------------------------------------------------- */

Test(vkernel_client, files_are_written_and_read)
{
    struct fs *fs = fs_start(0);
    char text[64];

    cr_expect_eq(put(fs, "/a", "hello"), 0);
    cr_expect_eq(fs->count[FUSE_CREATE], 1);
    cr_expect_eq(fs->count[FUSE_WRITE], 1);
    cr_expect_eq(fs->count[FUSE_FLUSH], 1);
    cr_expect_eq(fs->count[FUSE_RELEASE], 1);
    cr_expect_eq(LAST(fs, FUSE_CREATE, struct fuse_create_in).mode, S_IFREG | 0644);
    cr_expect_eq(LAST(fs, FUSE_CREATE, struct fuse_create_in).flags,
                 (uint32_t)(O_WRONLY | O_CREAT | O_TRUNC) | MF__VK_LARGEFILE);
    cr_expect_eq(LAST(fs, FUSE_RELEASE, struct fuse_release_in).flags, O_WRONLY | MF__VK_LARGEFILE);
    cr_expect_neq(LAST(fs, FUSE_FLUSH, struct fuse_flush_in).lock_owner, 0);
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "hello");
    cr_expect_eq(LAST(fs, FUSE_READ, struct fuse_read_in).size, 4096, "whole pages");
    cr_expect_eq(get(fs, "/none", text, sizeof(text)), -ENOENT);
    cr_expect_eq(get(fs, "/", text, sizeof(text)), -EISDIR);
    cr_expect_eq(put(fs, "/", "x"), -EISDIR);
    cr_expect_eq(put(fs, "/a/", "x"), -EISDIR);
    cr_expect_eq(put(fs, "/a/b", "x"), -ENOTDIR);
    cr_expect_eq(put(fs, "/none/b", "x"), -ENOENT);
    fs_stop(fs);
}

Test(vkernel_client, a_file_must_fit_the_buffer)
{
    struct fs *fs = fs_start(0);
    char text[8];
    uint64_t len = 4;

    cr_assert_eq(put(fs, "/a", "12345"), 0);
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/a", text, &len), -EFBIG);
    len = 5;
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/a", text, &len), 0);
    cr_expect_eq(len, 5);
    fs->fopen_flags = FOPEN_DIRECT_IO;
    len = 4;
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/a", text, &len), -EFBIG);
    len = 5;
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/a", text, &len), 0);
    fs_stop(fs);
}

Test(vkernel_client, large_files_go_in_pieces)
{
    uint64_t size = 3 * MAX_WRITE + 17, len = size;
    uint8_t *data = malloc(size), *back = calloc(1, size);
    struct fs *fs = fs_start(0);

    for (uint64_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 7 + i / 4096);
    cr_expect_eq(mf_client_write_file(fs->p.vk, "/big", data, size, 0600), 0);
    cr_expect_eq(fs->count[FUSE_WRITE], 4);
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/big", back, &len), 0);
    cr_expect_eq(fs->count[FUSE_READ], 4);
    cr_expect_eq(len, size);
    cr_expect_arr_eq(back, data, size);
    len = MAX_WRITE + 100;
    cr_expect_eq(mf_client_read_file(fs->p.vk, "/big", back, &len), -EFBIG, "after the first piece");
    fs->short_write = 1000;
    cr_expect_eq(mf_client_write_file(fs->p.vk, "/big", data, 5000, 0600), 0);
    cr_expect_eq(fs->count[FUSE_WRITE], 4 + 5, "programs write on after a short write");
    free(data);
    free(back);
    fs_stop(fs);
}

Test(vkernel_client, the_size_bounds_what_is_read)
{
    struct fs *fs = fs_start(0);
    char text[16];

    cr_assert_eq(put(fs, "/a", "hidden"), 0);
    fs->lie_size = 1;
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "", "as through the page cache of a mount");
    fs->lie_size = 2;
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "hid");
    fs->fopen_flags = FOPEN_DIRECT_IO;
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "hidden");
    fs_stop(fs);
}

Test(vkernel_client, attributes_that_are_not_valid_are_asked_for)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;
    char text[16];

    cr_assert_eq(put(fs, "/a", "text"), 0);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/a", &attr), 0);
    cr_expect_eq(fs->count[FUSE_GETATTR], 0);
    fs->node_time = 0;
    cr_expect_eq(mf_client_stat(fs->p.vk, "/a", &attr), 0);
    cr_expect_eq(attr.size, 4);
    cr_expect_eq(fs->count[FUSE_GETATTR], 1);
    cr_expect_eq(LAST(fs, FUSE_GETATTR, struct fuse_getattr_in).getattr_flags, 0);
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
    cr_expect_eq(LAST(fs, FUSE_GETATTR, struct fuse_getattr_in).getattr_flags, FUSE_GETATTR_FH);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/", &attr), 0);
    cr_expect(S_ISDIR(attr.mode));
    fs_stop(fs);
}

Test(vkernel_client, truncation_at_open_has_two_ways)
{
    for (int atomic = 0; atomic < 2; atomic++) {
        struct fs *fs = fs_start(atomic ? FUSE_ATOMIC_O_TRUNC : 0);
        char text[16];

        cr_assert_eq(put(fs, "/a", "longer"), 0);
        cr_expect_eq(put(fs, "/a", "new"), 0);
        cr_expect_eq((LAST(fs, FUSE_OPEN, struct fuse_open_in).flags & O_TRUNC) != 0, atomic);
        cr_expect_eq(LAST(fs, FUSE_OPEN, struct fuse_open_in).flags & O_CREAT, 0);
        cr_expect_eq(fs->count[FUSE_SETATTR], !atomic);
        cr_expect_eq(get(fs, "/a", text, sizeof(text)), 0);
        cr_expect_str_eq(text, "new");
        fs_stop(fs);
    }
}

Test(vkernel_client, failures_on_the_way_close_the_file)
{
    struct fs *fs = fs_start(0);
    char text[16];

    cr_assert_eq(put(fs, "/a", "text"), 0);
    fs->fail[FUSE_READ] = EBADMSG;
    cr_expect_eq(get(fs, "/a", text, sizeof(text)), -EBADMSG);
    fs->fail[FUSE_WRITE] = ENOSPC;
    cr_expect_eq(put(fs, "/a", "x"), -ENOSPC);
    fs->fail[FUSE_SETATTR] = EROFS;
    cr_expect_eq(put(fs, "/a", "x"), -EROFS);
    fs->fail[FUSE_SETATTR] = fs->fail[FUSE_WRITE] = 0;
    fs->fail[FUSE_FLUSH] = EDQUOT;
    cr_expect_eq(put(fs, "/a", "x"), -EDQUOT, "close(2) has an error too");
    fs->fail[FUSE_FLUSH] = 0;
    fs->fopen_flags = FOPEN_NOFLUSH;
    fs->count[FUSE_FLUSH] = 0;
    cr_expect_eq(put(fs, "/a", "x"), 0);
    cr_expect_eq(fs->count[FUSE_FLUSH], 0);
    fs_stop(fs);
}

Test(vkernel_client, by_node)
{
    struct mf_entry e = { .size = sizeof(e) };
    struct fs *fs = fs_start(0);
    struct mf_attr attr;
    char text[16] = "";
    uint64_t fh;

    cr_assert_eq(put(fs, "/a", "0123456789"), 0);
    cr_expect_eq(mf_client_lookup(fs->p.vk, 1, "a", &e), 0);
    cr_expect_eq(e.size, sizeof(e));
    cr_expect_eq(e.attr.size, 10);
    cr_expect_eq(e.attr_timeout_ns, MF_SECOND);
    cr_expect_eq(mf_client_lookup(fs->p.vk, 1, "no/slash", &e), -EINVAL);
    cr_expect_eq(mf_client_lookup(fs->p.vk, 1, "none", &e), -ENOENT);
    cr_expect_eq(mf_client_lookup(fs->p.vk, 1, "a", &e), 0);
    cr_expect_eq(mf_client_getattr(fs->p.vk, e.node, &attr), 0);
    cr_expect_eq(attr.mode, S_IFREG | 0644);
    cr_assert_eq(mf_client_open(fs->p.vk, e.node, O_RDWR, &fh), 0);
    cr_expect_eq(mf_client_write(fs->p.vk, e.node, fh, "xyz", 3, 2), 3);
    cr_expect_eq(mf_client_read(fs->p.vk, e.node, fh, text, 15, 1), 9);
    cr_expect_str_eq(text, "1xyz56789");
    cr_expect_eq(LAST(fs, FUSE_READ, struct fuse_read_in).size, 15);
    cr_expect_eq(mf_client_release(fs->p.vk, e.node, fh), 0);
    cr_expect_eq(mf_client_forget(fs->p.vk, e.node, 2), 0);
    fs_stop(fs);
}

/* ---- walks -------------------------------------------------------------------------------------- */

Test(vkernel_client, every_name_is_looked_up_and_forgotten)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d/e", 0777), 0);
    cr_assert_eq(put(fs, "d/e/f", "x"), 0);
    fs_settle(fs);
    fs->count[FUSE_LOOKUP] = fs->count[FUSE_BATCH_FORGET] = fs->count[FUSE_FORGET] = 0;
    cr_expect_eq(mf_client_stat(fs->p.vk, "//d/./e/..//e/f", &attr), 0);
    cr_expect_eq(fs->count[FUSE_LOOKUP], 4);
    fs_settle(fs);
    cr_expect_eq(fs->count[FUSE_BATCH_FORGET] + fs->count[FUSE_FORGET], 1, "all at once");
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/../../d", &attr), 0);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/e/f/", &attr), -ENOTDIR);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/e/f/..", &attr), -ENOTDIR);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/e/", &attr), 0);
    cr_expect_eq(mf_client_stat(fs->p.vk, "", &attr), -ENOENT);
    cr_expect_eq(mf_client_stat(fs->p.vk, NULL, &attr), -EINVAL);
    fs_stop(fs);
}

Test(vkernel_client, links_are_followed)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;
    char text[16];
    uint64_t len = sizeof(text);

    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
    cr_assert_eq(put(fs, "/d/f", "x"), 0);
    cr_assert_eq(mf_client_symlink(fs->p.vk, "/d/rel", "f"), 0);
    cr_assert_eq(mf_client_symlink(fs->p.vk, "/abs", "/d"), 0);
    cr_assert_eq(mf_client_symlink(fs->p.vk, "/d/top", "/d/f"), 0);
    cr_assert_eq(mf_client_symlink(fs->p.vk, "/loop", "loop"), 0);
    cr_assert_eq(mf_client_symlink(fs->p.vk, "/d/new", "../made"), 0);
    cr_expect_eq(get(fs, "/abs/rel", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "x");
    cr_expect_eq(get(fs, "/d/top", text, sizeof(text)), 0, "from the root");
    cr_expect_eq(mf_client_stat(fs->p.vk, "/abs", &attr), 0);
    cr_expect(S_ISDIR(attr.mode));
    cr_expect_eq(mf_client_stat(fs->p.vk, "/loop", &attr), -ELOOP);
    cr_expect_eq(put(fs, "/loop", "x"), -ELOOP);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/new", &attr), -ENOENT);
    cr_expect_eq(put(fs, "/d/new", "through"), 0);
    cr_expect_eq(get(fs, "/made", text, sizeof(text)), 0);
    cr_expect_str_eq(text, "through");
    cr_expect_eq(mf_client_readlink(fs->p.vk, "/d/new", text, &len), 0);
    cr_expect_eq(len, 7);
    cr_expect_str_eq(text, "../made");
    len = 3;
    cr_expect_eq(mf_client_readlink(fs->p.vk, "/abs/new", text, &len), -ERANGE);
    cr_expect_eq(len, 7);
    cr_expect_eq(mf_client_readlink(fs->p.vk, "/d", text, &len), -EINVAL);
    cr_expect_eq(mf_client_unlink(fs->p.vk, "/abs"), 0, "the link, not what it points to");
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d", &attr), 0);
    fs_stop(fs);
}

Test(vkernel_client, names_have_a_longest)
{
    struct fs *fs = fs_start(0);
    char name[4098] = "";
    struct mf_attr attr;

    memset(name, 'n', 4096);
    cr_expect_eq(mf_client_stat(fs->p.vk, name, &attr), -ENAMETOOLONG);
    cr_expect_eq(fs->count[FUSE_LOOKUP], 0);
    name[4095] = 0;
    cr_expect_eq(mf_client_stat(fs->p.vk, name, &attr), -ENOENT);
    cr_expect_eq(fs->count[FUSE_LOOKUP], 1);
    fs_stop(fs);
}

/* ---- names -------------------------------------------------------------------------------------- */

Test(vkernel_client, directories)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    cr_expect_eq(mf_client_mkdir(fs->p.vk, "/d/", 0777), 0);
    cr_expect_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), -EEXIST);
    cr_expect_eq(mf_client_mkdir(fs->p.vk, "/", 0777), -EEXIST);
    cr_expect_eq(fs->count[FUSE_MKDIR], 1);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d", &attr), 0);
    cr_expect_eq(attr.mode, S_IFDIR | 0755);
    cr_expect_eq(mf_client_unlink(fs->p.vk, "/d"), -EISDIR);
    cr_expect_eq(mf_client_rmdir(fs->p.vk, "/d"), 0);
    cr_expect_eq(mf_client_rmdir(fs->p.vk, "/d"), -ENOENT);
    cr_assert_eq(put(fs, "/f", ""), 0);
    cr_expect_eq(mf_client_rmdir(fs->p.vk, "/f"), -ENOTDIR);
    cr_expect_eq(mf_client_rmdir(fs->p.vk, "/"), -EBUSY);
    cr_expect_eq(mf_client_unlink(fs->p.vk, "/f"), 0);
    cr_expect_eq(fs->count[FUSE_RMDIR], 1);
    cr_expect_eq(fs->count[FUSE_UNLINK], 1);
    fs_stop(fs);
}

Test(vkernel_client, the_umask_is_whose_business_it_was_agreed_to_be)
{
    for (int theirs = 0; theirs < 2; theirs++) {
        struct fs *fs = fs_start(theirs ? FUSE_DONT_MASK : 0);

        cr_expect_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
        cr_expect_eq(LAST(fs, FUSE_MKDIR, struct fuse_mkdir_in).mode, theirs ? 0777u : 0755u);
        cr_expect_eq(LAST(fs, FUSE_MKDIR, struct fuse_mkdir_in).umask, 022);
        fs_stop(fs);
    }
}

Test(vkernel_client, new_nodes_come_with_an_empty_list_of_contexts)
{
    struct fs *fs = fs_start(FUSE_SECURITY_CTX);

    cr_expect_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
    cr_expect_eq(mf_client_symlink(fs->p.vk, "/l", "t"), 0);
    cr_expect_eq(mf_client_mknod(fs->p.vk, "/n", 0600, 0), 0);
    cr_expect_eq(put(fs, "/f", ""), 0);
    cr_expect_eq(fs->last_ext[FUSE_MKDIR], 8);
    cr_expect_eq(fs->last_ext[FUSE_SYMLINK], 8);
    cr_expect_eq(fs->last_ext[FUSE_MKNOD], 8);
    cr_expect_eq(fs->last_ext[FUSE_CREATE], 8);
    cr_expect_eq(fs->last_len[FUSE_MKDIR], sizeof(struct fuse_mkdir_in) + 2);
    fs_stop(fs);
}

Test(vkernel_client, special_files_and_hard_links)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    cr_expect_eq(mf_client_mknod(fs->p.vk, "/p", S_IFIFO | 0600, 0), 0);
    cr_expect_eq(mf_client_mknod(fs->p.vk, "/c", S_IFCHR | 0600, 0x103), 0);
    cr_expect_eq(LAST(fs, FUSE_MKNOD, struct fuse_mknod_in).rdev, 0x103);
    cr_expect_eq(mf_client_mknod(fs->p.vk, "/r", 0600, 0), 0);
    cr_expect_eq(LAST(fs, FUSE_MKNOD, struct fuse_mknod_in).mode, S_IFREG | 0600);
    cr_expect_eq(mf_client_mknod(fs->p.vk, "/x", S_IFDIR | 0600, 0), -EPERM);
    cr_expect_eq(mf_client_mknod(fs->p.vk, "/p", 0600, 0), -EEXIST);
    cr_expect_eq(mf_client_link(fs->p.vk, "/r", "/r2"), 0);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/r2", &attr), 0);
    cr_expect_eq(mf_client_link(fs->p.vk, "/r", "/p"), -EEXIST);
    cr_expect_eq(mf_client_link(fs->p.vk, "/none", "/y"), -ENOENT);
    cr_expect_eq(mf_client_link(fs->p.vk, "/", "/y"), -EPERM);
    cr_expect_eq(fs->count[FUSE_LINK], 1);
    fs_stop(fs);
}

Test(vkernel_client, renames)
{
    struct fs *fs = fs_start(0);
    char text[16];

    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
    cr_assert_eq(put(fs, "/a", "a"), 0);
    cr_assert_eq(put(fs, "/b", "b"), 0);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/a", "/d/a", 0), 0);
    cr_expect_eq(fs->count[FUSE_RENAME], 1);
    cr_expect_eq(get(fs, "/d/a", text, sizeof(text)), 0);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/d/a", 1), -EEXIST);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/none", 2), -ENOENT);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/none", "/c", 0), -ENOENT);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/d", 0), -EISDIR);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/d", "/b", 0), -ENOTDIR);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/b", 0), 0, "nothing to do");
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/c", 8), -EINVAL);
    cr_expect_eq(fs->count[FUSE_RENAME] + fs->count[FUSE_RENAME2], 1);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/b", "/c", 1), 0);
    cr_expect_eq(LAST(fs, FUSE_RENAME2, struct fuse_rename2_in).flags, 1);
    fs->fail[FUSE_RENAME2] = ENOSYS;
    cr_expect_eq(mf_client_rename(fs->p.vk, "/c", "/b", 1), -EINVAL);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/c", "/b", 1), -EINVAL);
    cr_expect_eq(fs->count[FUSE_RENAME2], 2);
    fs_stop(fs);
}

Test(vkernel_client, changing_attributes)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    cr_assert_eq(put(fs, "/a", "text"), 0);
    cr_expect_eq(mf_client_chmod(fs->p.vk, "/a", 0600), 0);
    cr_expect_eq(LAST(fs, FUSE_SETATTR, struct fuse_setattr_in).valid, FATTR_MODE);
    cr_expect_eq(mf_client_truncate(fs->p.vk, "/a", 2), 0);
    cr_expect_eq(LAST(fs, FUSE_SETATTR, struct fuse_setattr_in).valid, FATTR_SIZE | FATTR_LOCKOWNER);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/a", &attr), 0);
    cr_expect_eq(attr.size, 2);
    cr_expect_eq(attr.mode, S_IFREG | 0600);
    cr_expect_eq(mf_client_truncate(fs->p.vk, "/", 2), -EISDIR);
    cr_expect_eq(mf_client_truncate(fs->p.vk, "/a", UINT64_MAX), -EINVAL);
    fs_stop(fs);
}

Test(vkernel_client, statfs_and_access)
{
    struct mf_statfs st = { .size = sizeof(st) };
    struct fs *fs = fs_start(0);

    cr_expect_eq(mf_client_statfs(fs->p.vk, &st), 0);
    cr_expect(st.blocks == 1 && st.bfree == 2 && st.bavail == 3 && st.files == 4);
    cr_expect(st.ffree == 5 && st.bsize == 6 && st.namelen == 7 && st.frsize == 8);
    cr_expect_eq(mf_client_access(fs->p.vk, "/", 6), 0);
    cr_expect_eq(LAST(fs, FUSE_ACCESS, struct fuse_access_in).mask, 6);
    cr_expect_eq(mf_client_access(fs->p.vk, "/", 8), -EINVAL);
    fs_stop(fs);
}

Test(vkernel_client, output_structures_may_be_older)
{
    struct mf_statfs st;
    struct fs *fs = fs_start(0);

    memset(&st, 0xee, sizeof(st));
    st.size = offsetof(struct mf_statfs, bfree);
    cr_expect_eq(mf_client_statfs(fs->p.vk, &st), 0);
    cr_expect_eq(st.size, offsetof(struct mf_statfs, bfree));
    cr_expect_eq(st.blocks, 1);
    cr_expect_eq(st.bfree, 0xeeeeeeeeeeeeeeeeull);
    st.size = 2;
    cr_expect_eq(mf_client_statfs(fs->p.vk, &st), -EINVAL);
    fs_stop(fs);
}

Test(vkernel_client, xattrs)
{
    for (int ext = 0; ext < 2; ext++) {
        struct fs *fs = fs_start(ext ? FUSE_SETXATTR_EXT : 0);
        char buf[64];

        cr_assert_eq(put(fs, "/a", ""), 0);
        cr_expect_eq(mf_client_getxattr(fs->p.vk, "/a", "user.n", buf, sizeof(buf)), -ENODATA);
        if (ext)
            cr_expect_eq(mf_client_setxattr(fs->p.vk, "/a", "user.n", "value", 5, XATTR_CREATE), 0);
        else
            snprintf(fs->node[2].xname, NAME, "user.n"), snprintf(fs->node[2].xvalue, NAME, "value");
        cr_expect_eq(mf_client_getxattr(fs->p.vk, "/a", "user.n", NULL, 0), 5);
        cr_expect_eq(mf_client_getxattr(fs->p.vk, "/a", "user.n", buf, 4), -ERANGE);
        cr_expect_eq(mf_client_getxattr(fs->p.vk, "/a", "user.n", buf, sizeof(buf)), 5);
        cr_expect_arr_eq(buf, "value", 5);
        cr_expect_eq(mf_client_listxattr(fs->p.vk, "/a", NULL, 0), 7);
        cr_expect_eq(mf_client_listxattr(fs->p.vk, "/a", buf, sizeof(buf)), 7);
        cr_expect_str_eq(buf, "user.n");
        cr_expect_eq(mf_client_removexattr(fs->p.vk, "/a", "user.n"), 0);
        cr_expect_eq(mf_client_listxattr(fs->p.vk, "/a", buf, sizeof(buf)), -ENODATA);
        cr_expect_eq(mf_client_setxattr(fs->p.vk, "/a", "", "v", 1, 0), -ERANGE);
        cr_expect_eq(mf_client_setxattr(fs->p.vk, "/a", "user.n", "v", 65537, 0), -E2BIG);
        cr_expect_eq(mf_client_setxattr(fs->p.vk, "/a", "user.n", "v", 1, 4), -EINVAL);
        fs_stop(fs);
    }
}

Test(vkernel_client, setxattr_has_two_layouts)
{
    struct fs *fs = fs_start(0);

    fs->fail[FUSE_SETXATTR] = EACCES;
    cr_expect_eq(mf_client_setxattr(fs->p.vk, "/", "user.n", "value", 5, 0), -EACCES);
    cr_expect_eq(fs->last_len[FUSE_SETXATTR], 8 + 7 + 5);
    fs_stop(fs);
    fs = fs_start(FUSE_SETXATTR_EXT);
    fs->fail[FUSE_SETXATTR] = EACCES;
    cr_expect_eq(mf_client_setxattr(fs->p.vk, "/", "user.n", "value", 5, 0), -EACCES);
    cr_expect_eq(fs->last_len[FUSE_SETXATTR], 16 + 7 + 5);
    fs_stop(fs);
}

Test(vkernel_client, raw_answers_are_handed_over)
{
    struct fuse_statfs_out out;
    uint64_t len = sizeof(out);
    struct fs *fs = fs_start(0);

    cr_expect_eq(mf_client_raw(fs->p.vk, FUSE_STATFS, 1, NULL, 0, &out, &len), 0);
    cr_expect_eq(len, sizeof(out));
    cr_expect_eq(out.st.frsize, 8);
    len = 4;
    cr_expect_eq(mf_client_raw(fs->p.vk, FUSE_STATFS, 1, NULL, 0, &out, &len), -ERANGE);
    cr_expect_eq(len, sizeof(out));
    cr_expect_eq(mf_client_raw(fs->p.vk, FUSE_STATFS, 1, NULL, 0, NULL, NULL), 0);
    len = 4;
    fs->fail[FUSE_STATFS] = EACCES;
    cr_expect_eq(mf_client_raw(fs->p.vk, FUSE_STATFS, 1, NULL, 0, &out, &len), -EACCES);
    cr_expect_eq(len, 0);
    fs->fail[FUSE_STATFS] = 0;
    fs_stop(fs);
}

Test(vkernel_client, users_lose_suid_bits_by_what_they_change)
{
    struct fs *fs = fs_start(FUSE_HANDLE_KILLPRIV_V2 | FUSE_ATOMIC_O_TRUNC);

    cr_expect_eq(put(fs, "/a", "x"), 0);
    cr_expect_eq(LAST(fs, FUSE_WRITE, struct fuse_write_in).write_flags, 0, "root keeps them");
    fs->p.vk->opts.uid = 1000;
    cr_expect_eq(put(fs, "/a", "x"), 0);
    cr_expect_eq(LAST(fs, FUSE_OPEN, struct fuse_open_in).open_flags, FUSE_OPEN_KILL_SUIDGID);
    cr_expect_eq(LAST(fs, FUSE_WRITE, struct fuse_write_in).write_flags, FUSE_WRITE_KILL_SUIDGID);
    cr_expect_eq(put(fs, "/b", "x"), 0);
    cr_expect_eq(LAST(fs, FUSE_CREATE, struct fuse_create_in).open_flags, FUSE_OPEN_KILL_SUIDGID);
    cr_expect_eq(mf_client_truncate(fs->p.vk, "/b", 0), 0);
    cr_expect_neq(LAST(fs, FUSE_SETATTR, struct fuse_setattr_in).valid & FATTR_KILL_SUIDGID, 0);
    fs_stop(fs);
}

Test(vkernel_client, what_is_refused_before_it_is_asked)
{
    struct fs *fs = fs_start(0);
    char target[4097] = "", text[8];

    memset(target, 't', 4096);
    cr_expect_eq(mf_client_symlink(fs->p.vk, "/l", ""), -ENOENT);
    cr_expect_eq(mf_client_symlink(fs->p.vk, "/l", target), -ENAMETOOLONG);
    cr_expect_eq(fs->count[FUSE_SYMLINK], 0);
    cr_assert_eq(mf_client_mknod(fs->p.vk, "/p", S_IFIFO | 0600, 0), 0);
    cr_expect_eq(get(fs, "/p", text, sizeof(text)), -EINVAL);
    cr_expect_eq(put(fs, "/p", "x"), -EINVAL);
    cr_expect_eq(mf_client_truncate(fs->p.vk, "/p", 0), -EINVAL);
    cr_expect_eq(fs->count[FUSE_OPEN], 0);
    cr_expect_eq(mf_client_mkdir(fs->p.vk, "/..", 0700), -EEXIST);
    cr_expect_eq(mf_client_rename(fs->p.vk, "/p", "/.", 0), -EBUSY);
    fs_stop(fs);
}

Test(vkernel_client, old_servers_forget_one_by_one)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    pthread_mutex_lock(&fs->p.vk->lock);
    fs->p.vk->minor = 15;
    pthread_mutex_unlock(&fs->p.vk->lock);
    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d", 0777), 0);
    cr_assert_eq(mf_client_mkdir(fs->p.vk, "/d/e", 0777), 0);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/d/e", &attr), 0);
    fs_settle(fs);
    cr_expect_eq(fs->count[FUSE_BATCH_FORGET], 0);
    cr_expect_eq(fs->count[FUSE_FORGET], 5);
    fs_stop(fs);
}

/* ---- directories -------------------------------------------------------------------------------- */

static void check_list(uint64_t flags, uint64_t nodes, uint32_t plain, uint32_t plus)
{
    struct fs *fs = fs_start(flags);
    char names[64], name[16];
    uint64_t len = sizeof(names);

    fs->plus = nodes;
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "/f%d", i);
        cr_assert_eq(put(fs, name, ""), 0);
    }
    cr_expect_eq(mf_client_list(fs->p.vk, "/", names, &len), 0);
    cr_expect_eq(len, 21);
    cr_expect_arr_eq(names, "f0\0f1\0f2\0f3\0f4\0f5\0f6", 21);
    cr_expect_eq(fs->count[FUSE_READDIR], plain);
    cr_expect_eq(fs->count[FUSE_READDIRPLUS], plus);
    cr_expect_eq(fs->count[FUSE_RELEASEDIR], 1);
    len = 20;
    cr_expect_eq(mf_client_list(fs->p.vk, "/", names, &len), -ERANGE);
    cr_expect_eq(len, 21);
    cr_expect_eq(mf_client_list(fs->p.vk, "/f0", names, &len), -ENOTDIR);
    fs_stop(fs);
}

Test(vkernel_client, listing)
{
    check_list(0, 0, 4, 0);
    check_list(FUSE_DO_READDIRPLUS, 0, 0, 4);
    check_list(FUSE_DO_READDIRPLUS, 1, 0, 4);
    check_list(FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO, 1, 3, 1);
}

/* A listing whose first piece is `dir`; with `tail` the rest is the filesystem's own. */
static int list_raw(const void *dir, size_t len, uint64_t *used)
{
    struct fs *fs = fs_start(0);
    char names[64];
    int rc;

    fs->raw_dir = dir;
    fs->raw_dir_len = len;
    *used = sizeof(names);
    rc = mf_client_list(fs->p.vk, "/", names, used);
    cr_expect_eq(fs->count[FUSE_RELEASEDIR], 1);
    fs_stop(fs);
    return rc;
}

Test(vkernel_client, names_in_directories_have_a_longest)
{
    struct {
        struct fuse_dirent d;
        char name[4096];
    } e = { .d = { .ino = 5, .off = NODES, .namelen = 4096, .type = DT_REG } };
    uint64_t used;

    memset(e.name, 'n', sizeof(e.name));
    cr_expect_eq(list_raw(&e, sizeof(e), &used), -EIO);
    e.d.namelen = 4095;
    cr_expect_eq(list_raw(&e, sizeof(e), &used), -ERANGE, "too long for the caller, not for the kernel");
    cr_expect_eq(used, 4096);
}

Test(vkernel_client, malformed_directories)
{
    struct {
        struct fuse_dirent d;
        char name[24];
    } e = { .d = { .ino = 5, .off = NODES, .namelen = 3, .type = DT_REG }, .name = "abcdefgh" };
    struct {
        struct fuse_dirent d;
        char name[8];
    } cut[2] = { { .d = { .ino = 5, .off = NODES, .namelen = 3 }, .name = "abc" },
                 { .d = { .ino = 5, .off = NODES, .namelen = 30 }, .name = "abcdefgh" } };
    uint64_t used;

    cr_expect_eq(list_raw(&e, 32, &used), 0);
    cr_expect_eq(used, 4);
    cr_expect_eq(list_raw(&e, 40, &used), 0, "the rest is no whole record");
    cr_expect_eq(used, 4);
    cr_expect_eq(list_raw(&cut, 64, &used), 0, "nor is half of one");
    cr_expect_eq(used, 4);
    cr_expect_eq(list_raw(&e, 31, &used), -EIO);
    cr_expect_eq(list_raw(&e, 8, &used), -EIO);
    e.d.namelen = 0;
    cr_expect_eq(list_raw(&e, 32, &used), -EIO);
    e.d.namelen = 4096;
    cr_expect_eq(list_raw(&e, 32, &used), -EIO);
    e.d.namelen = UINT32_MAX;
    cr_expect_eq(list_raw(&e, 32, &used), -EIO);
    e.d.namelen = 200;
    cr_expect_eq(list_raw(&e, 40, &used), -EIO, "longer than the answer");
    e.d.namelen = 3;
    e.name[1] = '/';
    cr_expect_eq(list_raw(&e, 32, &used), -EIO);
    e.name[1] = 0;
    cr_expect_eq(list_raw(&e, 32, &used), -EIO);
    e.name[1] = 'b';
    e.d.off = 0;
    cr_expect_eq(list_raw(&e, 32, &used), -EIO, "a cookie that leads nowhere");
}

/* ---- answers that a kernel does not believe ------------------------------------------------------ */

struct liar {
    struct pair p;
    pthread_t thread;
    const void *body;
    size_t len;
    uint32_t opcode;
};

/* Answers one opcode as told, everything else with ENOENT. */
static void *liar_main(void *arg)
{
    struct liar *l = arg;

    while (end_read(&l->p.end) == 0) {
        if (l->p.end.io.msg.hdr.opcode == l->opcode)
            end_answer(&l->p.end, 0, l->body, l->len);
        else if (l->p.end.io.msg.hdr.opcode != FUSE_FORGET && l->p.end.io.msg.hdr.opcode != FUSE_BATCH_FORGET)
            end_answer(&l->p.end, -ENOENT, NULL, 0);
    }
    return NULL;
}

static void liar_start(struct liar *l, uint32_t opcode, const void *body, size_t len)
{
    *l = (struct liar){ .body = body, .len = len, .opcode = opcode };
    pair_open(&l->p, 0);
    cr_assert_eq(pthread_create(&l->thread, NULL, liar_main, l), 0);
}

static void liar_stop(struct liar *l)
{
    mf_vkernel_unmount(l->p.vk);
    pthread_join(l->thread, NULL);
    pair_close(&l->p);
}

static int lookup_lie(const struct fuse_entry_out *e)
{
    struct mf_entry out = { .size = sizeof(out) };
    struct liar l;
    int rc;

    liar_start(&l, FUSE_LOOKUP, e, sizeof(*e));
    rc = mf_client_lookup(l.p.vk, 1, "n", &out);
    liar_stop(&l);
    return rc;
}

Test(vkernel_client, impossible_nodes_are_refused)
{
    struct fuse_entry_out e = { .nodeid = 5, .attr = { .mode = S_IFREG | 0644 } };

    cr_expect_eq(lookup_lie(&e), 0);
    e.attr.mode = 0644;
    cr_expect_eq(lookup_lie(&e), -EIO);
    e.attr.mode = S_IFREG;
    e.attr.size = (uint64_t)INT64_MAX + 1;
    cr_expect_eq(lookup_lie(&e), -EIO);
    e.nodeid = 0;
    cr_expect_eq(lookup_lie(&e), -ENOENT, "a negative answer");
}

Test(vkernel_client, a_new_node_is_of_the_wanted_type)
{
    struct fuse_entry_out e = { .nodeid = 5, .attr = { .mode = S_IFREG | 0644 } };
    struct liar l;

    liar_start(&l, FUSE_MKDIR, &e, sizeof(e));
    cr_expect_eq(mf_client_mkdir(l.p.vk, "/d", 0755), -EIO);
    e.attr.mode = S_IFDIR;
    cr_expect_eq(mf_client_mkdir(l.p.vk, "/d", 0755), 0);
    e.nodeid = 1;
    cr_expect_eq(mf_client_mkdir(l.p.vk, "/d", 0755), -EIO);
    e.nodeid = 0;
    cr_expect_eq(mf_client_mkdir(l.p.vk, "/d", 0755), -EIO);
    liar_stop(&l);
}

Test(vkernel_client, a_new_file_is_a_file)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = { .entry = { .nodeid = 5, .attr = { .mode = S_IFDIR } } };
    struct liar l;

    liar_start(&l, FUSE_CREATE, &out, sizeof(out));
    cr_expect_eq(mf_client_write_file(l.p.vk, "/f", NULL, 0, 0600), -EIO);
    out.entry.attr.mode = S_IFREG;
    cr_expect_eq(mf_client_write_file(l.p.vk, "/f", NULL, 0, 0600), -ENOENT, "the error of FLUSH");
    out.entry.nodeid = 1;
    cr_expect_eq(mf_client_write_file(l.p.vk, "/f", NULL, 0, 0600), -EIO);
    liar_stop(&l);
}

Test(vkernel_client, a_node_keeps_its_type)
{
    struct fuse_attr_out out = { .attr = { .mode = S_IFREG } };
    struct mf_attr attr;
    struct liar l;

    liar_start(&l, FUSE_GETATTR, &out, sizeof(out));
    cr_expect_eq(mf_client_stat(l.p.vk, "/", &attr), -EIO, "the root is a directory");
    out.attr.mode = 0;
    cr_expect_eq(mf_client_getattr(l.p.vk, 5, &attr), -EIO);
    out.attr.mode = S_IFDIR;
    cr_expect_eq(mf_client_stat(l.p.vk, "/", &attr), 0);
    liar_stop(&l);
}

Test(vkernel_client, more_written_than_there_was)
{
    struct fuse_write_out out = { .size = 6 };
    struct liar l;

    liar_start(&l, FUSE_WRITE, &out, sizeof(out));
    cr_expect_eq(mf_client_write(l.p.vk, 5, 0, "12345", 5, 0), -EIO);
    out.size = 5;
    cr_expect_eq(mf_client_write(l.p.vk, 5, 0, "12345", 5, 0), 5);
    out.size = 0;
    cr_expect_eq(mf_client_write(l.p.vk, 5, 0, "12345", 5, 0), -EIO);
    liar_stop(&l);
}

Test(vkernel_client, a_list_of_xattrs_is_checked)
{
    static const struct {
        const char *list;
        uint32_t len;
        int64_t result;
    } lists[] = { { "a\0bc", 5, 5 }, { "", 0, 0 }, { "a", 1, -EIO }, { "a\0\0b", 5, -EIO }, { "", 1, -EIO } };
    char buf[16];

    for (size_t i = 0; i < MF__ARRAY_SIZE(lists); i++) {
        struct liar l;

        liar_start(&l, FUSE_LISTXATTR, lists[i].list, lists[i].len);
        cr_expect_eq(mf_client_listxattr(l.p.vk, "/", buf, sizeof(buf)), lists[i].result, "list %zu", i);
        liar_stop(&l);
    }
}

/* ---- any answer at all -------------------------------------------------------------------------- */

/* Answers every opcode with what it may hold, but of random bytes, with a sound field here and there. */
struct noise {
    struct pair p;
    pthread_t thread;
    uint32_t seed;
};

static uint32_t noise_next(struct noise *n)
{
    n->seed = n->seed * 1664525u + 1013904223u;
    return n->seed >> 8;
}

static size_t noise_body(struct noise *n, uint8_t *body)
{
    const struct mf__msg *msg = &n->p.end.io.msg;
    uint32_t least, most, mode = noise_next(n) % 2 ? S_IFDIR : S_IFLNK;
    uint32_t name_len = noise_next(n) % 40;
    uint8_t in[64] = { 0 };
    size_t len;

    memcpy(in, msg->args, msg->args_len < sizeof(in) ? msg->args_len : sizeof(in));
    mf__vk_reply_size(msg->hdr.opcode, in, sizeof(in), &least, &most);
    len = most > least ? least + noise_next(n) % (most - least < 400 ? most - least : 400) : least;
    for (size_t i = 0; i < len; i++)
        body[i] = (uint8_t)(noise_next(n) % 4 ? noise_next(n) : 0);
    if (least == 128 || least == 144) {
        memset(body + 40 + 8, 0, 8); /* size */
        memcpy(body + 40 + 60, &mode, sizeof(mode));
    }
    if (msg->hdr.opcode == FUSE_READDIR && len > 24)
        memcpy(body + 16, &name_len, sizeof(name_len));
    return len;
}

static void *noise_main(void *arg)
{
    static uint8_t body[MAX_WRITE];
    struct noise *n = arg;

    while (end_read(&n->p.end) == 0) {
        uint32_t opcode = n->p.end.io.msg.hdr.opcode;
        size_t len;
        uint8_t *exact;

        if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET)
            continue;
        len = noise_body(n, body);
        exact = malloc(len ? len : 1);
        memcpy(exact, body, len);
        cr_assert_eq(end_answer(&n->p.end, 0, exact, len), 0);
        free(exact);
    }
    return NULL;
}

static void ask_everything(struct mf_vkernel *vk)
{
    char buf[300];
    uint64_t len = sizeof(buf);
    struct mf_attr attr;

    mf_client_list(vk, "/a", buf, &len);
    len = sizeof(buf);
    mf_client_list(vk, "/", buf, &len);
    len = sizeof(buf);
    mf_client_readlink(vk, "/a/b", buf, &len);
    len = sizeof(buf);
    mf_client_read_file(vk, "/a/b", buf, &len);
    mf_client_write_file(vk, "/a/b", buf, sizeof(buf), 0600);
    mf_client_stat(vk, "/a/b/c", &attr);
    mf_client_listxattr(vk, "/a", buf, sizeof(buf));
    mf_client_getxattr(vk, "/a", "user.n", buf, sizeof(buf));
    mf_client_getxattr(vk, "/", "user.n", NULL, 0);
    mf_client_rename(vk, "/a/b", "/c/d", 0);
    mf_client_link(vk, "/a", "/b/c");
    mf_client_mkdir(vk, "/a", 0700);
}

Test(vkernel_client, no_answer_does_harm)
{
    struct noise n = { .seed = 4711 };

    pair_open(&n.p, FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO);
    cr_assert_eq(pthread_create(&n.thread, NULL, noise_main, &n), 0);
    for (int i = 0; i < 300; i++)
        ask_everything(n.p.vk);
    cr_expect_eq(mf_vkernel_bad_replies(n.p.vk), 0);
    mf_vkernel_unmount(n.p.vk);
    pthread_join(n.thread, NULL);
    pair_close(&n.p);
}

Test(vkernel_client, times_do_not_overflow)
{
    cr_expect_eq(mf__vk_ns(1, 5), MF_SECOND + 5);
    cr_expect_eq(mf__vk_ns(0, UINT32_MAX), MF_SECOND - 1);
    cr_expect_eq(mf__vk_ns(UINT64_MAX, 0), UINT64_MAX);
    cr_expect_eq(mf__vk_ns(UINT64_MAX / MF_SECOND, 999999999), UINT64_MAX);
}

Test(vkernel_client, a_dead_filesystem_is_told)
{
    struct fs *fs = fs_start(0);
    struct mf_attr attr;

    mf_vkernel_unmount(fs->p.vk);
    cr_expect_eq(mf_client_stat(fs->p.vk, "/a", &attr), -ENOTCONN);
    cr_expect_eq(put(fs, "/a", ""), -ENOTCONN);
    pthread_join(fs->thread, NULL);
    pair_close(&fs->p);
    free(fs);
}
