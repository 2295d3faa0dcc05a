/*
 * The load generator: N client processes do one kind of system call on a
 * mounted directory for a while and time each call.
 *
 *   load DIR --op OP [--clients N] [--seconds S] [--warmup S] [--block BYTES]
 *        [--name FILE] [--pin] [--json]
 *   load DIR... --op OP --rounds N
 *
 * The second form: one client goes round the directories N times, for some
 * milliseconds each, and tells for each how many calls it made in those of its
 * turns in which no neighbour of the machine used the same core.
 *
 * Exit 0 with figures on stdout; 1 when a call failed; 3 when the clients did
 * not come back in time (then the mount is to be aborted by whoever made it: a
 * client that waits for a dead server cannot be killed).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILES 10000u
#define FILE_SIZE (64u << 10)
#define PAGE 4096u
#define MAX_CLIENTS 256
#define GRACE_NS 10000000000ull  /* beyond the planned time, then the deadline */
#define WRITE_WRAP (64ull << 20) /* a writer starts over after this much */
#define DROP_EVERY (16ull << 20) /* pages are given back in such steps */
#define MAX_DIRS 32
#define TURN_NS 6000000ull /* neighbours come and go within tens of milliseconds */
#define TURN_WARMUP 200u   /* calls */
#define PROBE_STEPS 60000u
#define UNDISTURBED 1.12 /* how much longer than its shortest time the probe may take */

/* Histogram: 64 linear steps in each power of two, so a value is known to
 * within 1/64; reported by the middle of its step, within 0.8 %. */
#define SUB_BITS 6
#define SUB (1u << SUB_BITS)
#define BUCKETS ((40 - SUB_BITS) * SUB)

struct client {
    pid_t pid;
    int error; /* errno of the call that failed */
    char failed[64];
    const char *where;  /* the directory: an argument, so the parent has it, too */
    uint64_t ops;       /* in the measured time */
    uint64_t ops_total; /* warm-up too: what the server's CPU time is spread over */
    uint64_t bytes_total;
    uint64_t bytes;
    uint64_t elapsed_ns;
    uint64_t max_ns;
    uint64_t sum_ns;
    uint64_t hist[BUCKETS];
};

/* What going round came to in one directory. */
struct round {
    double rate;      /* median of the undisturbed turns, calls per second; 0: there was none */
    unsigned counted; /* turns that were undisturbed */
};

struct shared {
    _Atomic unsigned ready;
    _Atomic uint64_t start_ns; /* 0 until all clients are ready */
    struct client client[MAX_CLIENTS];
    struct round round[MAX_DIRS];
};

struct work {
    int dir;
    const char *path;
    int fd;
    unsigned id;
    unsigned clients;
    uint64_t rng;
    uint64_t pos;
    uint64_t begin;
    uint64_t end;
    uint64_t dropped;
    size_t block;
    bool direct;
    const char *fixed; /* --name */
    char *buf;
    char name[32];
};

struct op {
    const char *name;
    bool direct;                  /* with O_DIRECT */
    int (*open)(struct work *);   /* once, before the clock runs; may be NULL */
    long (*run)(struct work *);   /* one operation: bytes moved, or -1 */
    void (*close)(struct work *); /* once, afterwards; may be NULL */
};

struct options {
    char **dirs;
    unsigned dir_count; /* 1, unless going round */
    unsigned rounds;
    const struct op *op;
    unsigned clients;
    double seconds;
    double warmup;
    size_t block;
    const char *name;
    bool pin;
    bool json;
};

static struct shared *shared;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec t = { (time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull) };

    nanosleep(&t, NULL);
}

static uint64_t next_random(struct work *w)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng;
}

/* ---- operations ---- */

static void random_name(struct work *w)
{
    unsigned n = (unsigned)(next_random(w) % FILES);

    if (w->fixed)
        return;
    /* snprintf would cost as much as a tenth of the whole call. */
    w->name[0] = 'f';
    for (int i = 4; i >= 1; i--, n /= 10)
        w->name[i] = (char)('0' + n % 10);
    w->name[5] = 0;
}

static long run_stat(struct work *w)
{
    struct stat st;

    random_name(w);
    return fstatat(w->dir, w->name, &st, 0);
}

static long run_missing(struct work *w)
{
    struct stat st;

    random_name(w);
    w->name[0] = 'm'; /* no such name */
    if (fstatat(w->dir, w->name, &st, 0) == 0) {
        errno = EEXIST;
        return -1;
    }
    return errno == ENOENT ? 0 : -1;
}

static int open_own_file(struct work *w)
{
    if (!w->fixed)
        snprintf(w->name, sizeof(w->name), "f%04u", w->id * 97 % FILES);
    w->fd = openat(w->dir, w->name, O_RDONLY | O_CLOEXEC);
    return w->fd < 0 ? -1 : 0;
}

static long run_read4k(struct work *w)
{
    off_t at = (off_t)(next_random(w) % (FILE_SIZE / PAGE) * PAGE);
    ssize_t n = pread(w->fd, w->buf, PAGE, at);

    if (n >= 0 && n != PAGE)
        errno = ENODATA;
    return n == PAGE ? n : -1;
}

static long run_open_read_close(struct work *w)
{
    ssize_t n;
    int fd;

    random_name(w);
    fd = openat(w->dir, w->name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    n = pread(fd, w->buf, PAGE, 0);
    if (close(fd) < 0 || n != PAGE)
        return -1;
    return n;
}

static void close_fd(struct work *w)
{
    close(w->fd);
}

/* Each client works on its own part of `big`, over and over. */
static int open_big(struct work *w, int flags, uint64_t limit)
{
    struct stat st;
    uint64_t part;

    snprintf(w->name, sizeof(w->name), "big");
    w->fd = openat(w->dir, w->name, flags | O_CLOEXEC | (w->direct ? O_DIRECT : 0));
    if (w->fd < 0 || fstat(w->fd, &st) < 0)
        return -1;
    part = (uint64_t)st.st_size / w->clients / w->block * w->block;
    w->begin = w->pos = w->dropped = part * w->id;
    w->end = w->begin + (part < limit ? part : limit);
    return 0;
}

static int open_big_to_read(struct work *w)
{
    return open_big(w, O_RDONLY, UINT64_MAX);
}

static int open_big_to_write(struct work *w)
{
    return open_big(w, O_WRONLY, WRITE_WRAP);
}

/* Pages are given back so that every byte comes from the server or goes to it, and the memory does not fill. */
static long advance(struct work *w, ssize_t n)
{
    if (n <= 0) {
        errno = n < 0 ? errno : ENODATA;
        return -1;
    }
    w->pos += (uint64_t)n;
    if (!w->direct && (w->pos - w->dropped >= DROP_EVERY || w->pos >= w->end)) {
        posix_fadvise(w->fd, (off_t)w->dropped, (off_t)(w->pos - w->dropped), POSIX_FADV_DONTNEED);
        w->dropped = w->pos;
    }
    if (w->pos >= w->end)
        w->pos = w->dropped = w->begin;
    return n;
}

static long run_seqread(struct work *w)
{
    return advance(w, pread(w->fd, w->buf, w->block, (off_t)w->pos));
}

static long run_seqwrite(struct work *w)
{
    return advance(w, pwrite(w->fd, w->buf, w->block, (off_t)w->pos));
}

static long run_create_unlink(struct work *w)
{
    int fd;

    snprintf(w->name, sizeof(w->name), "c%03u", w->id);
    fd = openat(w->dir, w->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || close(fd) < 0)
        return -1;
    return unlinkat(w->dir, w->name, 0);
}

static const struct op ops[] = {
    { "stat", false, NULL, run_stat, NULL },
    { "read4k", false, open_own_file, run_read4k, close_fd },
    { "lookup-missing", false, NULL, run_missing, NULL },
    { "open-read-close", false, NULL, run_open_read_close, NULL },
    { "seqread", false, open_big_to_read, run_seqread, close_fd },
    { "seqread-direct", true, open_big_to_read, run_seqread, close_fd },
    { "seqwrite", false, open_big_to_write, run_seqwrite, close_fd },
    { "seqwrite-direct", true, open_big_to_write, run_seqwrite, close_fd },
    { "create-unlink", false, NULL, run_create_unlink, NULL },
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

/* ---- histogram ---- */

static unsigned bucket_of(uint64_t v)
{
    unsigned shift, b;

    if (v < SUB)
        return (unsigned)v;
    shift = 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;
    b = ((shift + 1) << SUB_BITS) + (unsigned)((v >> shift) - SUB);
    return b < BUCKETS ? b : BUCKETS - 1;
}

static double middle_of(unsigned b)
{
    unsigned shift;

    if (b < SUB)
        return b;
    shift = (b >> SUB_BITS) - 1;
    return ((double)(SUB + (b & (SUB - 1))) + 0.5) * (double)(1ull << shift);
}

static double percentile_us(const struct client *c, double p)
{
    uint64_t want = (uint64_t)(p * (double)c->ops), seen = 0;

    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += c->hist[b];
        if (seen > want) /* the middle of the last step may lie beyond the maximum */
            return (middle_of(b) < (double)c->max_ns ? middle_of(b) : (double)c->max_ns) / 1e3;
    }
    return 0;
}

/* ---- a client ---- */

static _Noreturn void fail(struct client *c, const struct work *w, const char *what)
{
    c->error = errno ? errno : EIO;
    c->where = w->path;
    snprintf(c->failed, sizeof(c->failed), "%s %s", what, w->name);
    _exit(1);
}

/* One clock reading per operation: the end of one is the start of the next. */
static void measure(struct client *c, struct work *w, const struct op *op, uint64_t begin, uint64_t stop)
{
    uint64_t before, after = now_ns(), first = 0;

    do {
        long n;

        before = after;
        n = op->run(w);
        after = now_ns();
        if (n < 0)
            fail(c, w, op->name);
        c->ops_total++;
        c->bytes_total += (uint64_t)n;
        if (before < begin)
            continue;
        if (!first)
            first = before;
        c->ops++;
        c->bytes += (uint64_t)n;
        c->sum_ns += after - before;
        c->hist[bucket_of(after - before)]++;
        if (after - before > c->max_ns)
            c->max_ns = after - before;
    } while (after < stop);
    c->elapsed_ns = first ? after - first : 0;
}

static void pin_to(unsigned id)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(id % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void begin_work(struct client *c, struct work *w, const struct options *o, unsigned id, const char *dir)
{
    *w = (struct work){ .id = id, .clients = o->clients, .block = o->block, .direct = o->op->direct };
    w->path = dir;
    w->fixed = o->name;
    if (o->name)
        snprintf(w->name, sizeof(w->name), "%s", o->name);
    w->rng = 0x9e3779b97f4a7c15ull * (id + 1);
    w->buf = aligned_alloc(PAGE, (o->block + PAGE - 1) / PAGE * PAGE);
    if (!w->buf)
        fail(c, w, "memory");
    memset(w->buf, 0, o->block);
    w->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->dir < 0)
        fail(c, w, "opening the directory");
    if (o->op->open && o->op->open(w) < 0)
        fail(c, w, "opening");
}

static _Noreturn void client_main(const struct options *o, unsigned id)
{
    struct client *c = &shared->client[id];
    struct work w;
    uint64_t start;

    if (o->pin)
        pin_to(id);
    begin_work(c, &w, o, id, o->dirs[0]);

    atomic_fetch_add(&shared->ready, 1);
    while ((start = atomic_load(&shared->start_ns)) == 0)
        sleep_ns(200000);
    measure(c, &w, o->op, start + (uint64_t)(o->warmup * 1e9), start + (uint64_t)((o->warmup + o->seconds) * 1e9));
    if (o->op->close)
        o->op->close(&w);
    _exit(0);
}

/* ---- a client that goes round ---- */

struct turn {
    double rate;     /* calls per second */
    double probe_ns; /* the longer one of before and after */
};

/* Additions that do not wait for each other: slower while a neighbour uses the core, too. */
static double probe_ns(void)
{
    uint64_t begin = now_ns(), a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;

    for (uint64_t i = 0; i < PROBE_STEPS; i++) {
        a += i;
        b ^= i;
        c += b;
        d -= i;
        e += 3;
        f ^= a;
        __asm__ volatile("" ::"r"(a), "r"(b), "r"(c), "r"(d), "r"(e), "r"(f));
    }
    return (double)(now_ns() - begin);
}

static struct turn take_turn(struct client *c, struct work *w, const struct op *op)
{
    uint64_t begin, now, calls = 0;
    double before, after;

    for (unsigned i = 0; i < TURN_WARMUP; i++) {
        if (op->run(w) < 0)
            fail(c, w, op->name);
    }
    before = probe_ns();
    begin = now_ns();
    do {
        if (op->run(w) < 0)
            fail(c, w, op->name);
        calls++;
        now = now_ns();
    } while (now - begin < TURN_NS);
    after = probe_ns();
    return (struct turn){ (double)calls * 1e9 / (double)(now - begin), before > after ? before : after };
}

static int by_rate(const void *a, const void *b)
{
    double x = ((const struct turn *)a)->rate, y = ((const struct turn *)b)->rate;

    return x < y ? -1 : x > y;
}

static struct round sum_up(struct turn *turns, unsigned n, double shortest_ns)
{
    struct round r = { 0 };

    for (unsigned i = 0; i < n; i++) {
        if (turns[i].probe_ns <= shortest_ns * UNDISTURBED)
            turns[r.counted++] = turns[i];
    }
    qsort(turns, r.counted, sizeof(*turns), by_rate);
    if (r.counted)
        r.rate = turns[r.counted / 2].rate;
    return r;
}

static _Noreturn void round_main(const struct options *o)
{
    struct client *c = &shared->client[0];
    struct turn *turns = calloc((size_t)o->rounds * o->dir_count, sizeof(*turns));
    double shortest_ns = 1e12;
    struct work w[MAX_DIRS];

    for (unsigned d = 0; d < o->dir_count; d++)
        begin_work(c, &w[d], o, 0, o->dirs[d]);
    if (!turns)
        fail(c, &w[0], "memory");
    for (unsigned i = 0; i < o->rounds; i++) {
        for (unsigned k = 0; k < o->dir_count; k++) {
            unsigned d = i % 2 ? o->dir_count - 1 - k : k;
            struct turn t = take_turn(c, &w[d], o->op);

            turns[(size_t)d * o->rounds + i] = t;
            if (t.probe_ns < shortest_ns)
                shortest_ns = t.probe_ns;
        }
    }
    for (unsigned d = 0; d < o->dir_count; d++)
        shared->round[d] = sum_up(turns + (size_t)d * o->rounds, o->rounds, shortest_ns);
    _exit(0);
}

static void report_rounds(const struct options *o)
{
    for (unsigned d = 0; d < o->dir_count; d++) {
        const struct round *r = &shared->round[d];

        printf("%s{\"dir\":\"%s\",\"undisturbed\":%u,\"ops_per_s\":%.1f}%s\n", d ? " " : "[", o->dirs[d], r->counted,
               r->rate, d + 1 < o->dir_count ? "," : "]");
    }
}

/* ---- the parent ---- */

static void kill_all(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (shared->client[i].pid > 0)
            kill(shared->client[i].pid, SIGKILL);
    }
}

/* Returns how many are still there at the deadline; they may be unkillable,
 * so nobody waits for them any longer. */
static unsigned reap(unsigned n, uint64_t deadline, bool *failed)
{
    unsigned left = n;

    while (left > 0) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);

        if (pid > 0) {
            left--;
            for (unsigned i = 0; i < n; i++) {
                if (shared->client[i].pid == pid)
                    shared->client[i].pid = 0;
            }
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                *failed = true;
                kill_all(n);
            }
        } else if (now_ns() > deadline) {
            return left;
        } else {
            sleep_ns(1000000);
        }
    }
    return 0;
}

static void start_clients(const struct options *o)
{
    pid_t parent = getpid();

    for (unsigned i = 0; i < o->clients; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            if (o->rounds)
                round_main(o);
            client_main(o, i);
        }
        if (pid < 0) {
            perror("load: fork");
            kill_all(i);
            exit(1);
        }
        shared->client[i].pid = pid;
    }
}

static bool wait_until_ready(const struct options *o, uint64_t deadline)
{
    while (atomic_load(&shared->ready) < o->clients) {
        for (unsigned i = 0; i < o->clients; i++) {
            if (shared->client[i].error)
                return false; /* reap() tells the rest */
        }
        if (now_ns() > deadline)
            return false;
        sleep_ns(200000);
    }
    return true;
}

static void report(const struct options *o)
{
    static struct client sum;
    double rate = 0, byte_rate = 0;

    for (unsigned i = 0; i < o->clients; i++) {
        const struct client *c = &shared->client[i];
        double s = (double)c->elapsed_ns / 1e9;

        rate += s > 0 ? (double)c->ops / s : 0;
        byte_rate += s > 0 ? (double)c->bytes / s : 0;
        sum.ops += c->ops;
        sum.ops_total += c->ops_total;
        sum.bytes_total += c->bytes_total;
        sum.sum_ns += c->sum_ns;
        sum.max_ns = c->max_ns > sum.max_ns ? c->max_ns : sum.max_ns;
        for (unsigned b = 0; b < BUCKETS; b++)
            sum.hist[b] += c->hist[b];
    }
    printf(o->json ? "{\"op\":\"%s\",\"clients\":%u,\"seconds\":%g,\"ops\":%llu,"
                     "\"ops_total\":%llu,\"bytes_total\":%llu,\"ops_per_s\":%.1f,"
                     "\"bytes_per_s\":%.0f,\"mean_us\":%.2f,\"p50_us\":%.2f,"
                     "\"p99_us\":%.2f,\"p999_us\":%.2f,\"max_us\":%.2f}\n"
                   : "%s, %u clients, %g s: %llu ops (%llu with warm-up, %llu bytes), "
                     "%.0f ops/s, %.0f bytes/s, mean %.2f us, p50 %.2f, p99 %.2f, "
                     "p99.9 %.2f, max %.2f\n",
           o->op->name, o->clients, o->seconds, (unsigned long long)sum.ops, (unsigned long long)sum.ops_total,
           (unsigned long long)sum.bytes_total, rate, byte_rate,
           sum.ops ? (double)sum.sum_ns / 1e3 / (double)sum.ops : 0, percentile_us(&sum, 0.5),
           percentile_us(&sum, 0.99), percentile_us(&sum, 0.999), (double)sum.max_ns / 1e3);
}

static int run(const struct options *o)
{
    double planned_s = o->rounds ? (double)o->rounds * o->dir_count * 3 * TURN_NS / 1e9 : o->warmup + o->seconds;
    uint64_t deadline = now_ns() + GRACE_NS + (uint64_t)(planned_s * 1e9);
    bool failed = false;
    unsigned left;

    start_clients(o);
    if (o->rounds || wait_until_ready(o, deadline))
        atomic_store(&shared->start_ns, now_ns() + 2000000);
    else
        kill_all(o->clients);
    left = reap(o->clients, deadline, &failed);
    if (left > 0) {
        kill_all(o->clients);
        fprintf(stderr, "load: %u of %u clients of %s did not return from %s in time\n", left, o->clients, o->dirs[0],
                o->op->name);
        return 3;
    }
    for (unsigned i = 0; i < o->clients; i++) {
        const struct client *c = &shared->client[i];

        if (c->error)
            fprintf(stderr, "load: client %u: %s in %s: %s\n", i, c->failed, c->where, strerror(c->error));
    }
    if (failed)
        return 1;
    if (o->rounds)
        report_rounds(o);
    else
        report(o);
    return 0;
}

/* ---- command line ---- */

static _Noreturn void usage(void)
{
    fputs("usage: load DIR --op OP [--clients N] [--seconds S] [--warmup S]\n"
          "            [--block BYTES] [--name FILE] [--pin] [--json]\n"
          "       load DIR... --op OP --rounds N\n"
          "OP is one of",
          stderr);
    for (size_t i = 0; i < OPS; i++)
        fprintf(stderr, " %s", ops[i].name);
    fputs("\n--block: size of a call in the sequential ones (default 1 MiB)\n"
          "--name: the file that stat, read4k and open-read-close use (default: any of f0000 to f9999)\n"
          "--pin: bind client i to CPU i, to see what placement does\n"
          "--rounds: one client goes round the directories (at most 32), N times (at most 100000)\n",
          stderr);
    exit(2);
}

static const struct op *find_op(const char *name)
{
    for (size_t i = 0; i < OPS; i++) {
        if (strcmp(ops[i].name, name) == 0)
            return &ops[i];
    }
    usage();
}

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        { "op", required_argument, NULL, 'o' },      { "clients", required_argument, NULL, 'c' },
        { "seconds", required_argument, NULL, 's' }, { "warmup", required_argument, NULL, 'w' },
        { "block", required_argument, NULL, 'b' },   { "name", required_argument, NULL, 'n' },
        { "pin", no_argument, NULL, 'p' },           { "rounds", required_argument, NULL, 'r' },
        { "json", no_argument, NULL, 'j' },          { NULL, 0, NULL, 0 }
    };
    int c;

    *o = (struct options){ .clients = 1, .seconds = 0.5, .warmup = 0.1, .block = 1 << 20 };
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'o': o->op = find_op(optarg); break;
        case 'c': o->clients = (unsigned)atoi(optarg); break;
        case 's': o->seconds = atof(optarg); break;
        case 'w': o->warmup = atof(optarg); break;
        case 'b': o->block = (size_t)atol(optarg); break;
        case 'n': o->name = optarg; break;
        case 'p': o->pin = true; break;
        case 'r': o->rounds = (unsigned)atoi(optarg); break;
        case 'j': o->json = true; break;
        default: usage();
        }
    }
    o->dirs = argv + optind;
    o->dir_count = (unsigned)(argc - optind);
    if (o->dir_count < 1 || o->dir_count > (o->rounds ? MAX_DIRS : 1) || (o->rounds && o->clients != 1) ||
        o->rounds > 100000 || !o->op || o->clients < 1 || o->clients > MAX_CLIENTS || o->seconds <= 0 ||
        o->seconds > 3600 || o->warmup < 0 || o->warmup > 60 || o->block < PAGE || o->block > (64u << 20))
        usage();
}

int main(int argc, char **argv)
{
    struct options o;

    parse(argc, argv, &o);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("load: memory for results");
        return 1;
    }
    return run(&o);
}
