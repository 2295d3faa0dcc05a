/*
 * The bare responder: what a read/write loop over /dev/fuse can do when there
 * is no engine around it. It serves the filesystem `null` (names f0000 to
 * f9999 and `big`, all zeros) and nothing else, and is the measure that the
 * engine is held against.
 *
 *   responder MOUNTPOINT [--readers N] [--clone off|require] [--pin]
 *
 * Runs as root in the foreground until unmounted or signalled; exit 0 after a
 * clean end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- what is negotiated: keep equal to what the engine asks for ---- */

#define INIT_FLAGS                                                                                      \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA | \
     FUSE_ATOMIC_O_TRUNC | FUSE_ASYNC_DIO | FUSE_INIT_EXT)
#define MAX_PAGES 256
#define MAX_WRITE (MAX_PAGES * 4096u)

/* ---- the filesystem: keep equal in bench/peers and examples/null ---- */

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define BIG_SIZE (4ull << 30)
#define NODE_FILE0 2u /* f0000; the root is 1 */
#define NODE_BIG (NODE_FILE0 + FILES)

#define RECV_SIZE (MAX_WRITE + 4096u)
#define MAX_READERS 256

struct reader {
    pthread_t thread;
    int fd;
    int cpu;   /* -1: wherever the scheduler likes */
    char *in;  /* one request */
    char *out; /* reply header, then zeros; only the header is ever written */
};

struct options {
    const char *mountpoint;
    int readers;
    bool clone;
    bool pin;
};

static struct reader readers[MAX_READERS];
static pthread_t main_thread;

static void die(const char *what)
{
    fprintf(stderr, "responder: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fill_attr(struct fuse_attr *a, uint64_t node)
{
    memset(a, 0, sizeof(*a));
    a->ino = node;
    a->blksize = 4096;
    if (node == FUSE_ROOT_ID) {
        a->mode = S_IFDIR | 0555;
        a->nlink = 2;
        return;
    }
    a->mode = S_IFREG | 0444;
    a->nlink = 1;
    a->size = node == NODE_BIG ? BIG_SIZE : FILE_SIZE;
    a->blocks = a->size / 512;
}

static uint64_t find_name(const char *name)
{
    unsigned n = 0;

    if (strcmp(name, "big") == 0)
        return NODE_BIG;
    if (name[0] != 'f')
        return 0;
    for (int i = 1; i <= 4; i++) {
        if (name[i] < '0' || name[i] > '9')
            return 0;
        n = n * 10 + (unsigned)(name[i] - '0');
    }
    return name[5] ? 0 : NODE_FILE0 + n;
}

/* Each reply is built in r->out behind the header; returns the body's size or
 * -errno. Afterwards reply() zeroes it again. */

static int do_lookup(struct reader *r, const struct fuse_in_header *h)
{
    struct fuse_entry_out *out = (void *)(r->out + sizeof(struct fuse_out_header));
    uint64_t node = find_name((const char *)(h + 1));

    if (h->nodeid != FUSE_ROOT_ID || node == 0)
        return -ENOENT;
    memset(out, 0, sizeof(*out)); /* time-outs 0 */
    out->nodeid = node;
    fill_attr(&out->attr, node);
    return sizeof(*out);
}

static int do_getattr(struct reader *r, const struct fuse_in_header *h)
{
    struct fuse_attr_out *out = (void *)(r->out + sizeof(struct fuse_out_header));

    memset(out, 0, sizeof(*out));
    fill_attr(&out->attr, h->nodeid);
    return sizeof(*out);
}

static int do_open(struct reader *r, const struct fuse_in_header *h)
{
    const struct fuse_open_in *in = (const void *)(h + 1);
    struct fuse_open_out *out = (void *)(r->out + sizeof(struct fuse_out_header));

    if ((in->flags & O_ACCMODE) != O_RDONLY)
        return -EROFS;
    memset(out, 0, sizeof(*out));
    out->open_flags = h->nodeid == NODE_BIG ? FOPEN_KEEP_CACHE : FOPEN_DIRECT_IO;
    return sizeof(*out);
}

static int do_read(const struct fuse_in_header *h)
{
    const struct fuse_read_in *in = (const void *)(h + 1);
    uint64_t size = h->nodeid == NODE_BIG ? BIG_SIZE : FILE_SIZE;

    if (in->offset >= size)
        return 0;
    if (in->size > MAX_WRITE)
        return -EINVAL;
    return (int)(in->size < size - in->offset ? in->size : size - in->offset);
}

/* Directory positions: 1 and 2 are the dots, then f0000 to f9999, then big. */
static int do_readdir(struct reader *r, const struct fuse_in_header *h)
{
    const struct fuse_read_in *in = (const void *)(h + 1);
    char *body = r->out + sizeof(struct fuse_out_header);
    size_t used = 0;

    for (uint64_t i = in->offset; i < FILES + 3; i++) {
        char name[8];
        struct fuse_dirent d = { .ino = FUSE_ROOT_ID, .off = i + 1, .type = S_IFDIR >> 12 };
        size_t rec;

        if (i < 2) {
            snprintf(name, sizeof(name), "%s", i ? ".." : ".");
        } else {
            d.ino = NODE_FILE0 + i - 2;
            d.type = S_IFREG >> 12;
            if (d.ino == NODE_BIG)
                snprintf(name, sizeof(name), "big");
            else
                snprintf(name, sizeof(name), "f%04u", (unsigned)(i - 2) % FILES);
        }
        d.namelen = (uint32_t)strlen(name);
        rec = (sizeof(d) + d.namelen + 7) & ~(size_t)7;
        if (used + rec > in->size || used + rec > MAX_WRITE)
            break;
        memset(body + used, 0, rec);
        memcpy(body + used, &d, offsetof(struct fuse_dirent, name));
        memcpy(body + used + offsetof(struct fuse_dirent, name), name, d.namelen);
        used += rec;
    }
    return (int)used;
}

static int do_statfs(struct reader *r)
{
    struct fuse_statfs_out *out = (void *)(r->out + sizeof(struct fuse_out_header));

    memset(out, 0, sizeof(*out));
    out->st.bsize = out->st.frsize = 4096;
    out->st.files = FILES + 2;
    out->st.namelen = 255;
    return sizeof(*out);
}

static void reply(struct reader *r, const struct fuse_in_header *h, int rc)
{
    struct fuse_out_header *o = (void *)r->out;
    size_t body = rc > 0 ? (size_t)rc : 0;

    o->len = (uint32_t)(sizeof(*o) + body);
    o->error = rc < 0 ? rc : 0;
    o->unique = h->unique;
    /* ENOENT: the caller was killed meanwhile; nothing is owed to anyone. */
    if (write(r->fd, r->out, o->len) < 0 && errno != ENOENT && errno != ENODEV)
        fprintf(stderr, "responder: reply to opcode %u: %s\n", h->opcode, strerror(errno));
    if (h->opcode != FUSE_READ)
        memset(o + 1, 0, body);
}

static void serve(struct reader *r, const struct fuse_in_header *h)
{
    int rc;

    switch (h->opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: /* every answer is on its way already */ return;
    case FUSE_LOOKUP: rc = do_lookup(r, h); break;
    case FUSE_GETATTR: rc = do_getattr(r, h); break;
    case FUSE_READ: rc = do_read(h); break;
    case FUSE_OPEN: rc = do_open(r, h); break;
    case FUSE_RELEASE: rc = 0; break;
    case FUSE_READDIR: rc = do_readdir(r, h); break;
    case FUSE_STATFS: rc = do_statfs(r); break;
    default: /* FLUSH, ACCESS, OPENDIR, xattrs: told once, then never asked */ rc = -ENOSYS;
    }
    reply(r, h, rc);
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;

    for (;;) {
        ssize_t n = read(r->fd, r->in, RECV_SIZE);

        if (n >= (ssize_t)sizeof(struct fuse_in_header)) {
            serve(r, (const void *)r->in);
            continue;
        }
        if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        if (n < 0 && errno != ENODEV)
            fprintf(stderr, "responder: read: %s\n", strerror(errno));
        break;
    }
    pthread_kill(main_thread, SIGUSR2); /* the mount is gone */
    return NULL;
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        die("no memory for buffers");
    return p;
}

/* INIT comes first and alone: answered here, before any reader starts. */
static void handshake(struct reader *r)
{
    const struct fuse_in_header *h = (const void *)r->in;
    const struct fuse_init_in *in = (const void *)(h + 1);
    struct fuse_init_out *out = (void *)(r->out + sizeof(struct fuse_out_header));

    if (read(r->fd, r->in, RECV_SIZE) < 0)
        die("reading INIT");
    if (h->opcode != FUSE_INIT || in->major != 7 || in->minor < 36) {
        fprintf(stderr, "responder: kernel speaks FUSE %u.%u, need 7.36 or later\n", in->major, in->minor);
        exit(1);
    }
    memset(out, 0, sizeof(*out));
    out->major = FUSE_KERNEL_VERSION;
    out->minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor : FUSE_KERNEL_MINOR_VERSION;
    out->max_readahead = in->max_readahead;
    out->flags = in->flags & INIT_FLAGS;
    out->max_write = MAX_WRITE;
    out->max_pages = MAX_PAGES;
    out->time_gran = 1;
    reply(r, h, sizeof(*out));
}

static int mount_fs(const char *mountpoint)
{
    char data[128];
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        die("cannot open /dev/fuse (is the fuse module there, are you root?)");
    snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other", fd, getuid(), getgid());
    if (mount("responder", mountpoint, "fuse.responder", MS_NOSUID | MS_NODEV, data) < 0)
        die("cannot mount (root and an existing directory are needed)");
    return fd;
}

static void start_readers(const struct options *o, int master)
{
    uint32_t master_arg = (uint32_t)master;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    for (int i = 0; i < o->readers; i++) {
        struct reader *r = &readers[i];

        r->fd = master;
        if (i > 0) {
            r->in = map(RECV_SIZE);
            r->out = map(RECV_SIZE);
        }
        if (i > 0 && o->clone) {
            r->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
            if (r->fd < 0 || ioctl(r->fd, FUSE_DEV_IOC_CLONE, &master_arg) < 0)
                die("cannot clone /dev/fuse (try --clone off)");
        }
        r->cpu = o->pin ? (int)(i % cpus) : -1;
    }
}

static void run_readers(const struct options *o)
{
    for (int i = 0; i < o->readers; i++) {
        struct reader *r = &readers[i];
        pthread_attr_t attr;
        cpu_set_t set;

        pthread_attr_init(&attr);
        if (r->cpu >= 0) {
            CPU_ZERO(&set);
            CPU_SET((unsigned)r->cpu, &set);
            pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
        }
        errno = pthread_create(&r->thread, &attr, reader_main, r);
        if (errno)
            die("cannot start a reader");
        pthread_attr_destroy(&attr);
    }
}

/* Sleep until a signal asks for the end or a reader reports the unmount, then
 * see the readers out. A client that holds on to a detached mount gets five
 * seconds; leaving then closes the device, which fails its requests. */
static void wait_for_end(const struct options *o, const sigset_t *set)
{
    struct timespec deadline;
    int sig;

    sigwait(set, &sig);
    if (sig != SIGUSR2 && umount2(o->mountpoint, 0) < 0)
        umount2(o->mountpoint, MNT_DETACH);
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 5;
    for (int i = 0; i < o->readers; i++) {
        if (pthread_timedjoin_np(readers[i].thread, NULL, &deadline))
            _exit(1);
    }
}

static void usage(void)
{
    fputs("usage: responder MOUNTPOINT [--readers N] [--clone off|require] [--pin]\n"
          "  --readers N      reader threads (default 1; with --pin one per CPU)\n"
          "  --clone MODE     require: a cloned descriptor each (default); off: one shared\n"
          "  --pin            bind reader i to CPU i\n",
          stderr);
    exit(2);
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = { { "readers", required_argument, NULL, 'r' },
                                           { "clone", required_argument, NULL, 'c' },
                                           { "pin", no_argument, NULL, 'p' },
                                           { NULL, 0, NULL, 0 } };
    int c;

    *o = (struct options){ .clone = true };
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'r')
            o->readers = atoi(optarg);
        else if (c == 'c' && (!strcmp(optarg, "off") || !strcmp(optarg, "require")))
            o->clone = !strcmp(optarg, "require");
        else if (c == 'p')
            o->pin = true;
        else
            usage();
    }
    if (optind + 1 != argc || o->readers < 0 || o->readers > MAX_READERS)
        usage();
    o->mountpoint = argv[optind];
    if (o->readers == 0)
        o->readers = o->pin ? (int)sysconf(_SC_NPROCESSORS_ONLN) : 1;
}

int main(int argc, char **argv)
{
    struct options o;
    sigset_t set;
    int fd;

    parse(argc, argv, &o);
    main_thread = pthread_self();
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* inherited by the readers */

    readers[0].in = map(RECV_SIZE);
    readers[0].out = map(RECV_SIZE);
    fd = mount_fs(o.mountpoint);
    readers[0].fd = fd;
    handshake(&readers[0]);
    start_readers(&o, fd);
    run_readers(&o);
    wait_for_end(&o, &set);
    return 0;
}
