/*
 * The bare responder: what a read/write loop over /dev/fuse can do when there
 * is no engine around it. It serves the filesystem `null` (names f0000 to
 * f9999 and `big`, all zeros) and nothing else, and is the measure that the
 * engine is held against.
 *
 *   responder MOUNTPOINT [--readers N] [--clone off|require] [--pin] [--yield] [--slow]
 *
 * --yield: threads in class SCHED_IDLE, the session's group at nice 19; --slow:
 * files whose handlers wait (slow_fs.h) instead of `null`. Runs as root in the
 * foreground until unmounted or signalled; exit 0 after a clean end.
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
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "slow_fs.h"
#include "yielding.h"

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
    bool yield;
};

static struct reader readers[MAX_READERS];
static pthread_t main_thread;
static int (*answer)(uint32_t, uint64_t, const void *, const char *, void *) = null_answer;
static bool slow;

static void die(const char *what)
{
    fprintf(stderr, "responder: %s: %s\n", what, strerror(errno));
    exit(1);
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

/* On the thread that answers later. */
static void reply_later(void *who, uint64_t unique, uint64_t length)
{
    static const char zeros[FILE_SIZE];
    struct reader *r = who;
    struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + length), .unique = unique };
    const struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)zeros, length } };

    if (writev(r->fd, iov, 2) < 0 && errno != ENOENT && errno != ENODEV)
        fprintf(stderr, "responder: a later reply: %s\n", strerror(errno));
}

static void serve(struct reader *r, const struct fuse_in_header *h)
{
    void *body = r->out + sizeof(struct fuse_out_header);
    const char *name = (const char *)(h + 1) + (h->opcode == FUSE_CREATE ? sizeof(struct fuse_create_in) : 0);
    int rc;

    if (h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET || h->opcode == FUSE_INTERRUPT)
        return; /* every answer is on its way already */
    rc = answer(h->opcode, h->nodeid, h + 1, name, body);
    if (rc > 0 && slow && slow_is_deferred(h->opcode, h->nodeid))
        slow_defer(reply_later, r, h->unique, (uint64_t)rc);
    else
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
    fill_init(out, in);
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
    fputs("usage: responder MOUNTPOINT [--readers N] [--clone off|require] [--pin] [--yield] [--slow]\n"
          "  --readers N      reader threads (default 1; with --pin one per CPU)\n"
          "  --clone MODE     require: a cloned descriptor each (default); off: one shared\n"
          "  --pin            bind reader i to CPU i\n"
          "  --yield          readers in class SCHED_IDLE\n"
          "  --slow           files whose handlers wait\n",
          stderr);
    exit(2);
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        { "readers", required_argument, NULL, 'r' }, { "clone", required_argument, NULL, 'c' },
        { "pin", no_argument, NULL, 'p' },           { "yield", no_argument, NULL, 'y' },
        { "slow", no_argument, NULL, 's' },          { NULL, 0, NULL, 0 }
    };
    int c;

    *o = (struct options){ .clone = true };
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'r')
            o->readers = atoi(optarg);
        else if (c == 'c' && (!strcmp(optarg, "off") || !strcmp(optarg, "require")))
            o->clone = !strcmp(optarg, "require");
        else if (c == 'p')
            o->pin = true;
        else if (c == 'y')
            o->yield = true;
        else if (c == 's')
            slow = true;
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
    if (slow) {
        slow_begin();
        answer = slow_answer;
    }

    readers[0].in = map(RECV_SIZE);
    readers[0].out = map(RECV_SIZE);
    fd = mount_fs(o.mountpoint);
    readers[0].fd = fd;
    handshake(&readers[0]);
    start_readers(&o, fd);
    if (o.yield) {
        yield_group("responder");
        yield_thread();
    }
    run_readers(&o);
    wait_for_end(&o, &set);
    return 0;
}
