/*
 * The filesystem `null` on libfuse's low-level API, the fastest that libfuse
 * offers.
 *
 *   libfuse_null MOUNTPOINT [--readers N] [--clone off|require] [-s] [--slow] [-o OPTION]
 *
 * -s: one thread, without the thread pool. Otherwise libfuse's pool of at most
 * N threads (default 10, libfuse's own default), which it starts on demand.
 * -o: an option for libfuse itself, such as newer versions' io_uring.
 * --slow: the files are those of bench/slow_fs.h, whose readers wait.
 *
 * Unlike bench/responder.c: libfuse 3.14 speaks protocol 7.31, so it neither
 * asks for INIT_EXT nor needs to; and the receive buffer is sized by it.
 */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#include "../later.h"

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define BIG_SIZE (4ull << 30)
#define NODE_FILE0 2u
#define NODE_BIG (NODE_FILE0 + FILES)
#define MADE 256u
#define NODE_MADE0 (NODE_BIG + 1) /* c000 */
#define MAX_WRITE (1u << 20)

struct options {
    const char *mountpoint;
    const char *mount_options;
    unsigned readers;
    bool clone;
    bool single;
    bool slow;
};

enum slow_file { SLOW_FAST, SLOW_1MS, SLOW_SOME_10MS, SLOW_FOREIGN_1MS, SLOW_FILES };

static char zeros[MAX_WRITE];
static _Atomic unsigned char made[MADE];

static void fill_stat(struct stat *st, fuse_ino_t node)
{
    memset(st, 0, sizeof(*st));
    st->st_ino = node;
    st->st_blksize = 4096;
    if (node == FUSE_ROOT_ID) {
        st->st_mode = S_IFDIR | 0755;
        st->st_nlink = 2;
        return;
    }
    st->st_mode = S_IFREG | (node < NODE_BIG ? 0444 : 0644);
    st->st_nlink = 1;
    st->st_size = node < NODE_BIG ? (off_t)FILE_SIZE : node == NODE_BIG ? (off_t)BIG_SIZE : 0;
    st->st_blocks = st->st_size / 512;
}

/* The number behind the first letter, `digits` long, or -1. */
static int number_in(const char *name, int digits)
{
    int n = 0;

    for (int i = 1; i <= digits; i++) {
        if (name[i] < '0' || name[i] > '9')
            return -1;
        n = n * 10 + (name[i] - '0');
    }
    return name[digits + 1] ? -1 : n;
}

static fuse_ino_t find_made(const char *name)
{
    int n = name[0] == 'c' ? number_in(name, 3) : -1;

    return n >= 0 && n < (int)MADE ? NODE_MADE0 + (fuse_ino_t)n : 0;
}

static fuse_ino_t find_slow(const char *name)
{
    static const char *const names[SLOW_FILES] = { "fast", "sleep1ms", "sleep10ms-1in100", "foreign1ms" };

    for (unsigned i = 0; i < SLOW_FILES; i++) {
        if (strcmp(name, names[i]) == 0)
            return NODE_FILE0 + i;
    }
    return 0;
}

static fuse_ino_t find_name(const char *name)
{
    fuse_ino_t node;
    int n;

    if (name[0] == 'f') {
        n = number_in(name, 4);
        return n < 0 ? 0 : NODE_FILE0 + (fuse_ino_t)n;
    }
    if (strcmp(name, "big") == 0)
        return NODE_BIG;
    node = find_made(name);
    return node && made[node - NODE_MADE0] ? node : 0;
}

static void null_init(void *user, struct fuse_conn_info *conn)
{
    unsigned ring = conn->want & 1u << 31; /* newer versions' io_uring, if -o asked for it */

    (void)user;
    conn->max_write = MAX_WRITE;
    conn->want = ring | (conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_AUTO_INVAL_DATA |
                                          FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_ASYNC_DIO));
}

/* user: the options, of all handlers. */
static void null_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    const struct options *o = fuse_req_userdata(req);
    struct fuse_entry_param e = { .ino = o->slow ? find_slow(name) : find_name(name) }; /* time-outs 0 */

    if (parent != FUSE_ROOT_ID || e.ino == 0) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill_stat(&e.attr, e.ino);
    fuse_reply_entry(req, &e);
}

static void null_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    fill_stat(&st, ino);
    fuse_reply_attr(req, &st, 0);
}

static void null_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    if ((fi->flags & O_ACCMODE) != O_RDONLY && ino < NODE_BIG) {
        fuse_reply_err(req, EROFS);
        return;
    }
    if (ino == NODE_BIG)
        fi->keep_cache = 1;
    else
        fi->direct_io = 1;
    fuse_reply_open(req, fi);
}

static void reply_later(void *who, uint64_t unique, uint64_t length)
{
    (void)unique;
    fuse_reply_buf(who, zeros, length);
}

/* What the file's name says is done. True: another thread answers. */
static bool slow_read(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    static _Atomic unsigned count;
    struct timespec sleep = { .tv_nsec = 0 };

    if (ino == NODE_FILE0 + SLOW_1MS)
        sleep.tv_nsec = 1000000;
    else if (ino == NODE_FILE0 + SLOW_SOME_10MS && atomic_fetch_add(&count, 1) % 100 == 0)
        sleep.tv_nsec = 10000000;
    if (sleep.tv_nsec)
        nanosleep(&sleep, NULL);
    if (ino != NODE_FILE0 + SLOW_FOREIGN_1MS)
        return false;
    later_answer((struct later){ .answer = reply_later, .who = req, .length = size });
    return true;
}

static void null_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    const struct options *o = fuse_req_userdata(req);
    off_t end = ino < NODE_BIG ? (off_t)FILE_SIZE : ino == NODE_BIG ? (off_t)BIG_SIZE : 0;

    (void)fi;
    if (off >= end)
        size = 0;
    else if ((off_t)size > end - off)
        size = (size_t)(end - off);
    if (o->slow && slow_read(req, ino, size))
        return;
    fuse_reply_buf(req, zeros, size < MAX_WRITE ? size : MAX_WRITE);
}

static void null_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    (void)buf, (void)off, (void)fi;
    if (ino == NODE_BIG)
        fuse_reply_write(req, size);
    else
        fuse_reply_err(req, EROFS);
}

static void null_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct fuse_entry_param e = { .ino = find_made(name) };

    (void)mode;
    if (parent != FUSE_ROOT_ID || e.ino == 0) {
        fuse_reply_err(req, EROFS);
    } else if (atomic_exchange(&made[e.ino - NODE_MADE0], 1)) {
        fuse_reply_err(req, EEXIST);
    } else {
        fill_stat(&e.attr, e.ino);
        fi->direct_io = 1;
        fuse_reply_create(req, &e, fi);
    }
}

static void null_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_ino_t node = find_made(name);

    if (parent != FUSE_ROOT_ID || node == 0)
        fuse_reply_err(req, EROFS);
    else
        fuse_reply_err(req, atomic_exchange(&made[node - NODE_MADE0], 0) ? 0 : ENOENT);
}

/* libfuse answers what has no handler here with ENOSYS, except opendir, which
 * it grants; this one makes the kernel stop asking. */
static void null_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    fuse_reply_err(req, ENOSYS);
}

static void null_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    char *buf = malloc(size);
    size_t used = 0;

    (void)ino, (void)fi;
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    for (; off < (off_t)FILES + 3; off++) {
        struct stat st;
        char name[8];
        size_t n;

        fill_stat(&st, off < 2 ? FUSE_ROOT_ID : NODE_FILE0 + (fuse_ino_t)off - 2);
        if (off < 2)
            snprintf(name, sizeof(name), "%s", off ? ".." : ".");
        else if (st.st_ino == NODE_BIG)
            snprintf(name, sizeof(name), "big");
        else
            snprintf(name, sizeof(name), "f%04u", (unsigned)(off - 2) % FILES);
        n = fuse_add_direntry(req, buf + used, size - used, name, &st, off + 1);
        if (n > size - used)
            break;
        used += n;
    }
    fuse_reply_buf(req, buf, used);
    free(buf);
}

static const struct fuse_lowlevel_ops null_ops = {
    .init = null_init,
    .lookup = null_lookup,
    .getattr = null_getattr,
    .open = null_open,
    .read = null_read,
    .write = null_write,
    .create = null_create,
    .unlink = null_unlink,
    .opendir = null_opendir,
    .readdir = null_readdir,
};

static int serve(struct fuse_session *se, const struct options *o)
{
    struct fuse_loop_config *cfg;
    int rc;

    if (o->single)
        return fuse_session_loop(se);
    cfg = fuse_loop_cfg_create();
    fuse_loop_cfg_set_clone_fd(cfg, o->clone);
    if (o->readers) {
        fuse_loop_cfg_set_max_threads(cfg, o->readers);
        fuse_loop_cfg_set_idle_threads(cfg, o->readers);
    }
    rc = fuse_session_loop_mt(se, cfg);
    fuse_loop_cfg_destroy(cfg);
    return rc;
}

static void parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-s") == 0)
            o->single = true;
        else if (strcmp(argv[i], "--slow") == 0)
            o->slow = true;
        else if (strcmp(argv[i], "--readers") == 0 && i + 1 < argc)
            o->readers = (unsigned)atoi(argv[++i]);
        else if (strcmp(argv[i], "--clone") == 0 && i + 1 < argc)
            o->clone = strcmp(argv[++i], "require") == 0;
        else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc)
            o->mount_options = argv[++i];
        else if (argv[i][0] != '-' && !o->mountpoint)
            o->mountpoint = argv[i];
        else
            o->mountpoint = NULL, i = argc;
    }
    if (!o->mountpoint) {
        fputs("usage: libfuse_null MOUNTPOINT [--readers N] [--clone off|require] [-s] [--slow] [-o OPTION]\n", stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct options o = { 0 };
    struct fuse_session *se;
    int rc = 1;

    parse(argc, argv, &o);
    if (fuse_opt_add_arg(&args, argv[0]) < 0 || fuse_opt_add_arg(&args, "-oallow_other") < 0)
        return 1;
    if (o.mount_options && (fuse_opt_add_arg(&args, "-o") < 0 || fuse_opt_add_arg(&args, o.mount_options) < 0))
        return 1;
    if (o.slow && (prctl(PR_SET_TIMERSLACK, 1) != 0 || later_begin() != 0)) /* as in bench/slow_fs.h */
        return 1;
    se = fuse_session_new(&args, &null_ops, sizeof(null_ops), &o);
    fuse_opt_free_args(&args);
    if (!se)
        return 1;
    if (fuse_set_signal_handlers(se) == 0 && fuse_session_mount(se, o.mountpoint) == 0) {
        rc = serve(se, &o) < 0;
        fuse_session_unmount(se);
    }
    fuse_remove_signal_handlers(se);
    fuse_session_destroy(se);
    return rc;
}
