/* SPDX-License-Identifier: MIT */
/*
 * record.c - write down what a real kernel sends.
 *
 * Run by hand, as root, when a kernel speaks something new; what it wrote is committed beside it:
 *
 *   cc -std=gnu11 -Icore -Iabi/include tests/support/recorded/record.c core/wire/[a-z]*.c -o record
 *   ./record tests/support/recorded
 *
 * It mounts a little filesystem several times, with different INIT flags, lets a child use it in as many ways
 * as it knows, and keeps a few messages of each opcode. A recording is these messages one after the other; each
 * says its own length. The type of a file is the first letter of its name: f d l, and n for what is not there.
 *
 * The child never holds the device; every process has an alarm; at the end the mount is torn down by force.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "wire/wire.h"

#define BUFFER (1u << 20)
#define PER_OPCODE 6
#define LONGEST 4200u /* longer messages are not kept: nothing in them but more data */
#define DIR_GID 4242u /* group of the root directory, and one of the child's */
#define FILE_SIZE 8192u

struct variant {
    const char *name;
    uint64_t want; /* INIT flags, as far as the kernel offers them */
    bool block;    /* fuseblk on a loop device */
};

#define COMMON                                                                                                         \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS | FUSE_ATOMIC_O_TRUNC | FUSE_INIT_EXT | \
     FUSE_HAS_IOCTL_DIR)

static const struct variant variants[] = {
    { "full",
      COMMON | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_DONT_MASK | FUSE_DO_READDIRPLUS | FUSE_HANDLE_KILLPRIV_V2 |
          FUSE_SETXATTR_EXT | FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP | FUSE_EXPORT_SUPPORT,
      false },
    { "plain", COMMON | FUSE_WRITEBACK_CACHE, false },
    { "block", COMMON | FUSE_SECURITY_CTX, true },
};

/* ---- the recording ----------------------------------------------------------------------------------- */

static FILE *out;
static unsigned kept[MF__OPCODES];

static void keep(const uint8_t *msg, size_t len, uint32_t opcode)
{
    if (opcode >= MF__OPCODES || kept[opcode] == PER_OPCODE || len > LONGEST)
        return;
    kept[opcode]++;
    if (fwrite(msg, 1, len, out) != len)
        err(1, "write");
}

/* ---- the server -------------------------------------------------------------------------------------- */

static int dev;
static const struct variant *variant;
static uint64_t next_node = 16;
static uint64_t slow_unique; /* a READ that waits for its INTERRUPT */
static bool resent, copied;
static uint8_t in[BUFFER], reply[BUFFER];

/* Node ids carry the type: S_IFMT bits >> 12. */
static uint64_t new_node(uint32_t type)
{
    next_node += 16;
    return next_node | type;
}

static struct mf_attr attr_of(uint64_t node)
{
    uint32_t type = node == FUSE_ROOT_ID ? S_IFDIR >> 12 : node & 15;

    return (struct mf_attr){ .ino = node,
                             .size = type == S_IFREG >> 12 ? FILE_SIZE : 0,
                             .mode = type << 12 | 0777,
                             .nlink = type == S_IFDIR >> 12 ? 2 : 1,
                             .gid = node == FUSE_ROOT_ID ? DIR_GID : 0,
                             .mtime = 1700000000,
                             .blksize = 4096 };
}

static struct mf_entry entry_of(uint64_t node)
{
    return (struct mf_entry){ .node = node, .entry_timeout_ns = 10 * MF_SECOND, .attr = attr_of(node) };
}

static void answer(uint64_t unique, int error, size_t body_len)
{
    mf__put_header(reply, body_len, error, unique);
    if (write(dev, reply, 16 + body_len) < 0 && errno != ENOENT)
        warn("answer %d to %llu", error, (unsigned long long)unique);
}

static void notify(int64_t len)
{
    if (write(dev, reply, (size_t)len) < 0)
        warn("notification");
}

/* The kernel forgets these nodes, in one message where there are several. */
static void prune(unsigned count)
{
    uint64_t nodes[64];

    for (unsigned i = 0; i < count; i++)
        nodes[i] = (next_node - 16 * i) | S_IFREG >> 12;
    notify(mf__put_notify_prune(reply, BUFFER, nodes, count));
}

static size_t do_init(const struct mf__msg *msg, uint8_t *body)
{
    struct fuse_init_in hello;
    struct fuse_init_out init = {
        .major = 7, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 131072, .max_pages = 32
    };
    uint64_t flags;

    if (mf__decode_init(msg, &hello) < 0)
        errx(1, "INIT does not decode");
    flags = (hello.flags | (uint64_t)hello.flags2 << 32) & variant->want;
    fprintf(stderr, "%s: kernel 7.%u offers %08x %08x, wanted %016llx, given %016llx\n", variant->name, hello.minor,
            hello.flags, hello.flags2, (unsigned long long)variant->want, (unsigned long long)flags);
    init.flags = (uint32_t)flags;
    init.flags2 = (uint32_t)(flags >> 32);
    init.max_readahead = hello.max_readahead;
    return mf__put_init(body, &init, hello.minor);
}

static size_t do_readdir(const struct mf_call *call, uint8_t *body, bool plus)
{
    static const char *const names[] = { ".", "..", "fa", "db" };
    size_t used = 0;

    for (uint64_t i = call->offset; i < MF__ARRAY_SIZE(names); i++) {
        uint64_t node = i < 2 ? FUSE_ROOT_ID : 8 * i + (i == 2 ? S_IFREG >> 12 : S_IFDIR >> 12);
        struct mf_entry e = entry_of(node);
        int64_t n = plus ? mf__put_direntplus(body + used, call->length - used, names[i], strlen(names[i]), &e, i + 1)
                         : mf__put_dirent(body + used, call->length - used, names[i], strlen(names[i]), node,
                                          e.attr.mode, i + 1);

        if (n < 0)
            break;
        used += (size_t)n;
    }
    return used;
}

static size_t do_statx(const struct mf_call *call, uint8_t *body)
{
    struct mf_attr a = attr_of(call->node);
    struct fuse_statx sx = { .mask = 0xfff,
                             .blksize = 4096,
                             .nlink = a.nlink,
                             .mode = (uint16_t)a.mode,
                             .ino = a.ino,
                             .size = a.size,
                             .btime = { .tv_sec = 1600000000 } };

    return mf__put_statx(body, 0, &sx);
}

/* The body of a success, or -errno. */
static ssize_t handle(const struct mf__msg *msg, const struct mf_call *call, uint8_t *body)
{
    struct mf_entry e;
    struct mf_attr a = attr_of(call->node);
    uint64_t made = 0;

    switch (msg->hdr.opcode) {
    case FUSE_INIT: return (ssize_t)do_init(msg, body);
    case FUSE_LOOKUP:
        if (call->name[0] == 'n')
            return -ENOENT;
        made = new_node((call->name[0] == 'd' ? S_IFDIR : call->name[0] == 'l' ? S_IFLNK : S_IFREG) >> 12);
        break;
    case FUSE_SYMLINK: made = new_node(S_IFLNK >> 12); break;
    case FUSE_MKNOD: made = new_node(call->mode >> 12); break;
    case FUSE_MKDIR: made = new_node(S_IFDIR >> 12); break;
    case FUSE_LINK: made = call->node; break;
    case FUSE_CREATE:
    case FUSE_TMPFILE:
        e = entry_of(new_node(S_IFREG >> 12));
        return (ssize_t)(mf__put_entry(body, &e) + mf__put_open(body + 128, e.node + 1, 0, 0));
    case FUSE_GETATTR:
    case FUSE_SETATTR: return (ssize_t)mf__put_attr(body, 0, call->node, &a);
    case FUSE_READLINK: memcpy(body, "fa", 2); return 2;
    case FUSE_OPEN:
    case FUSE_OPENDIR: return (ssize_t)mf__put_open(body, call->node + 1, 0, 0);
    case FUSE_READ:
        if (call->offset >= FILE_SIZE)
            return 0;
        memset(body, 'x', call->length);
        return (ssize_t)(call->length < FILE_SIZE - call->offset ? call->length : FILE_SIZE - call->offset);
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE: return (ssize_t)mf__put_write(body, (uint32_t)call->length);
    case FUSE_COPY_FILE_RANGE_64:
        if (!copied) {
            copied = true;
            return (ssize_t)mf__put_copy64(body, call->length);
        }
        return -ENOSYS; /* so that the next one comes in the old way */
    case FUSE_STATFS:
        return (ssize_t)mf__put_statfs(body, &(struct mf_statfs){ .bsize = 4096, .frsize = 4096, .namelen = 4095 });
    case FUSE_GETXATTR: memcpy(body, "value", 5); return call->length ? 5 : (ssize_t)mf__put_xattr_size(body, 5);
    case FUSE_LISTXATTR: memcpy(body, "user.a", 7); return call->length ? 7 : (ssize_t)mf__put_xattr_size(body, 7);
    case FUSE_READDIR: return (ssize_t)do_readdir(call, body, false);
    case FUSE_READDIRPLUS: return (ssize_t)do_readdir(call, body, true);
    case FUSE_GETLK: return (ssize_t)mf__put_lk(body, &(struct mf_lock){ .type = F_UNLCK });
    case FUSE_BMAP: return (ssize_t)mf__put_bmap(body, call->offset + 7);
    case FUSE_IOCTL:
        memset(body + 16, 0, call->offset2);
        return (ssize_t)(mf__put_ioctl(body, 0, 0, 0, 0) + call->offset2);
    case FUSE_POLL: return (ssize_t)mf__put_poll(body, POLLIN | POLLOUT);
    case FUSE_LSEEK: return (ssize_t)mf__put_lseek(body, call->offset);
    case FUSE_STATX: return (ssize_t)do_statx(call, body);
    default: return 0;
    }
    e = entry_of(made);
    return (ssize_t)mf__put_entry(body, &e);
}

/* What is not answered at once. true: nothing more is to be done. */
static bool special(const struct mf__msg *msg, const struct mf_call *call)
{
    uint64_t unique = msg->hdr.unique;

    if (msg->hdr.opcode == FUSE_INTERRUPT) {
        if (slow_unique)
            answer(slow_unique, -EINTR, 0);
        slow_unique = 0;
        return true;
    }
    if (msg->hdr.opcode == FUSE_READ && call->flags & O_SYNC) { /* how the child marks it */
        slow_unique = unique;
        return true;
    }
    if (msg->hdr.opcode == FUSE_LOOKUP && !strcmp(call->name, "fagain") && !resent) {
        resent = true;
        notify(mf__put_notify_plain(reply, BUFFER, FUSE_NOTIFY_RESEND));
        return true;
    }
    return mf__opcode(msg->hdr.opcode)->reply == MF__REPLY_NEVER;
}

static void after(const struct mf__msg *msg, const struct mf_call *call)
{
    if (msg->hdr.opcode == FUSE_FSYNC)
        notify(mf__put_notify_retrieve(reply, BUFFER, msg->hdr.unique, call->node, 0, 100));
    if (msg->hdr.opcode == FUSE_UNLINK && !strcmp(call->name, "fone"))
        prune(1);
    if (msg->hdr.opcode == FUSE_UNLINK && !strcmp(call->name, "fmany"))
        prune(10);
}

static void serve(size_t len)
{
    struct mf_forget one;
    struct mf__msg msg;
    struct mf_call call;
    ssize_t n;
    int rc = mf__msg_split(&msg, in, len);

    keep(in, len, msg.hdr.opcode);
    if (rc == 0)
        rc = mf__decode(&msg, variant->want, &call, &one);
    if (rc < 0) {
        warnx("opcode %u of %zu bytes does not decode: %s", msg.hdr.opcode, len, strerror(-rc));
        answer(msg.hdr.unique, rc, 0);
        return;
    }
    if (special(&msg, &call))
        return;
    n = handle(&msg, &call, reply + 16);
    answer(msg.hdr.unique, n < 0 ? (int)n : 0, n < 0 ? 0 : (size_t)n);
    after(&msg, &call);
}

/* Until the mount is gone, nothing came for `idle_ms`, or `child` ended (it is waited for). */
static bool serve_for(int idle_ms, pid_t child)
{
    struct pollfd p = { .fd = dev, .events = POLLIN };
    ssize_t n;

    for (int idle = 0; idle < idle_ms;) {
        if (poll(&p, 1, 20) == 0) {
            idle += 20;
            if (child && waitpid(child, NULL, WNOHANG) == child)
                return true;
            continue;
        }
        n = read(dev, in, sizeof(in));
        if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        if (n < 0)
            return false;
        idle = 0;
        serve((size_t)n);
    }
    return true;
}

/* ---- the child: everything that sends something ------------------------------------------------------ */

static int tries, failures;

static void did(long rc, const char *what)
{
    tries++;
    if (rc < 0) {
        failures++;
        fprintf(stderr, "  %s: %s\n", what, strerror(errno));
    }
}

#define DO(call) did((long)(call), #call)

static void names(void)
{
    struct stat st;
    char longest[1501];

    DO(stat(".", &st)); /* or the kernel does not know the directory's group */
    DO(stat("fa", &st));
    DO(stat("db/fdeep", &st));
    DO(stat("fagain", &st));
    memset(longest, 'n', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    stat(longest, &st);
    DO(mkdir("nd", 0750));
    DO(mkdir("dd/nd2", 02755) < 0 && errno != EEXIST ? -1 : 0);
    DO(mknod("nnod", S_IFREG | 0600, 0));
    DO(mknod("nnull", S_IFCHR | 0666, makedev(1, 3)));
    DO(mknod("nfifo", S_IFIFO | 0666, 0));
    DO(symlink("../some/where", "nl"));
    DO(link("fa", "nlink"));
    DO(rename("fa", "nmoved"));
    DO(rename("fb", "db/nmoved"));
    DO(renameat2(AT_FDCWD, "fc", AT_FDCWD, "fd", RENAME_EXCHANGE));
    DO(renameat2(AT_FDCWD, "fe", AT_FDCWD, "nnew", RENAME_NOREPLACE));
    DO(unlink("ff"));
    DO(rmdir("dgone"));
    DO(readlink("la", longest, sizeof(longest)));
    DO(access("fa", R_OK | W_OK));
    DO(access("fa", F_OK));
}

static void attributes(void)
{
    struct timespec times[2] = { { .tv_sec = 1, .tv_nsec = 2 }, { .tv_nsec = UTIME_NOW } };
    struct statvfs vfs;
    struct statx sx;
    int fd = open("fattr", O_RDWR);

    DO(chmod("fattr", 0600));
    DO(chown("fattr", 1, 2));
    DO(truncate("fattr", 100));
    DO(ftruncate(fd, 200));
    DO(utimensat(AT_FDCWD, "fattr", times, 0));
    DO(utimensat(AT_FDCWD, "fattr", NULL, 0));
    DO(statx(fd, "", AT_EMPTY_PATH, STATX_ALL, &sx));
    DO(statx(AT_FDCWD, "fattr", 0, STATX_BTIME, &sx));
    DO(statvfs(".", &vfs));
    DO(syncfs(fd));
    close(fd);
}

static void xattrs(void)
{
    char value[64];

    DO(setxattr("fa", "user.a", "value", 5, 0));
    DO(setxattr("fa", "user.a", "", 0, XATTR_REPLACE));
    DO(setxattr("fa", "user.with/slash", "a\0b", 3, XATTR_CREATE));
    DO(getxattr("fa", "user.a", value, sizeof(value)));
    DO(getxattr("fa", "user.a", NULL, 0));
    DO(listxattr("fa", value, sizeof(value)));
    DO(listxattr("fa", NULL, 0));
    DO(removexattr("fa", "user.a"));
}

static void files(void)
{
    char data[300];
    struct pollfd p = { .events = POLLIN };
    int value = 77;
    int fd = open("nfile", O_RDWR | O_CREAT | O_EXCL, 0640);
    int other = open("fother", O_RDWR);
    int tmp = open(".", O_TMPFILE | O_RDWR, 0600);
    int direct = open("fdirect", O_RDWR | O_DIRECT);

    DO(fd);
    DO(other);
    DO(tmp);
    DO(pread(other, data, sizeof(data), 0));
    memset(data, 'w', sizeof(data));
    DO(pwrite(fd, data, 10, 0));
    DO(pwrite(fd, data, sizeof(data), 5000));
    DO(pwrite(direct, data, 100, 3));
    DO(pread(direct, data, 100, 3));
    DO(pwrite(other, data, 10, 0)); /* one page of the cache */
    DO(fsync(other));
    usleep(50000);
    DO(fdatasync(fd));
    DO(fallocate(fd, FALLOC_FL_KEEP_SIZE, 10, 20));
    DO(lseek(other, 5, SEEK_DATA));
    DO(copy_file_range(other, &(off64_t){ 0 }, fd, &(off64_t){ 1 }, 100, 0));
    DO(copy_file_range(other, &(off64_t){ 7 }, fd, &(off64_t){ 9 }, 90, 0));
    DO(ioctl(fd, _IOWR('m', 1, int), &value));
    DO(ioctl(fd, _IO('m', 2), 5));
    DO(ioctl(fd, FS_IOC_GETFLAGS, &value));
    p.fd = fd;
    DO(poll(&p, 1, 0));
    close(direct);
    close(tmp);
    close(other);
    close(fd);
}

static void locks(void)
{
    struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20 };
    int fd = open("flock", O_RDWR);

    DO(fcntl(fd, F_SETLK, &fl));
    DO(fcntl(fd, F_SETLKW, &fl));
    fl.l_len = 0;
    DO(fcntl(fd, F_OFD_SETLK, &fl));
    DO(fcntl(fd, F_GETLK, &fl));
    fl.l_type = F_UNLCK;
    DO(fcntl(fd, F_SETLK, &fl));
    DO(flock(fd, LOCK_SH | LOCK_NB));
    DO(flock(fd, LOCK_EX));
    close(fd);
}

static void directories(void)
{
    DIR *dir = opendir("dlist");

    if (dir) {
        while (readdir(dir))
            ;
        rewinddir(dir);
        while (readdir(dir))
            ;
        DO(fsync(dirfd(dir)));
        closedir(dir);
    }
}

static void nothing(int sig)
{
    (void)sig;
}

static void interrupted(void)
{
    struct sigaction sa = { .sa_handler = nothing };
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        char c;
        int fd;

        alarm(10);
        sigaction(SIGUSR1, &sa, NULL);
        fd = open("fslow", O_RDONLY | O_SYNC | O_DIRECT);
        _exit(fd >= 0 && read(fd, &c, 1) < 0 && errno == EINTR ? 0 : 1);
    }
    usleep(300000);
    kill(pid, SIGUSR1);
    waitpid(pid, &status, 0);
    DO(status == 0 ? 0 : (errno = EPROTO, -1));
}

/* References that the kernel gives back: one, many. */
static void references(void)
{
    struct stat st;
    char name[16];

    DO(stat("fkept", &st));
    DO(unlink("fone"));
    usleep(50000);
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), "fkept%d", i);
        DO(stat(name, &st));
    }
    DO(unlink("fmany"));
    usleep(50000);
}

static void block_only(void)
{
    int fd = open("fmap", O_RDONLY), block = 3;

    DO(ioctl(fd, FIBMAP, &block));
    DO(syncfs(fd));
    close(fd);
}

static void use(const char *mountpoint)
{
    gid_t group = DIR_GID;

    alarm(20);
    if (chdir(mountpoint) < 0 || setgroups(1, &group) < 0)
        err(1, "%s", mountpoint);
    umask(027);
    names();
    attributes();
    xattrs();
    files();
    locks();
    directories();
    interrupted();
    references();
    if (variant->block)
        block_only();
    fprintf(stderr, "  %d of %d calls failed\n", failures, tries);
}

/* ---- mounts ------------------------------------------------------------------------------------------ */

/* A loop device of 1 MiB that goes away when it is no longer used. Returns its open descriptor. */
static int loop_device(char path[64])
{
    struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int file = memfd_create("block", MFD_CLOEXEC);
    int nr = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    int fd;

    if (nr < 0 || file < 0 || ftruncate(file, 1 << 20) < 0)
        return -1;
    snprintf(path, 64, "/dev/loop%d", nr);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, LOOP_SET_FD, file) < 0 || ioctl(fd, LOOP_SET_STATUS64, &info) < 0)
        return -1;
    close(control);
    close(file);
    return fd;
}

static bool mount_it(const char *mountpoint)
{
    char options[256], device[64] = "record";
    int loop = -1;

    if (variant->block && (loop = loop_device(device)) < 0) {
        warn("no loop device: skipped");
        return false;
    }
    dev = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other%s", dev,
             variant->block ? ",blksize=4096" : "");
    if (dev < 0 || mount(device, mountpoint, variant->block ? "fuseblk" : "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        warn("%s", variant->name);
        return false;
    }
    if (loop >= 0)
        close(loop);
    return true;
}

static void record(const char *mountpoint)
{
    pid_t pid;

    if (!mount_it(mountpoint))
        return;
    pid = fork();
    if (pid == 0) {
        close(dev);
        use(mountpoint);
        _exit(0);
    }
    serve_for(15000, pid);
    serve_for(300, 0);
    pid = fork();
    if (pid == 0) {
        close(dev);
        alarm(5);
        _exit(umount2(mountpoint, 0) < 0);
    }
    serve_for(3000, 0);
    close(dev); /* aborts the connection, so nobody can hang in it */
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    umount2(mountpoint, MNT_DETACH);
}

static void summary(void)
{
    fprintf(stderr, "  not seen:");
    for (uint32_t nr = 0; nr < MF__OPCODES; nr++)
        if (mf__opcode(nr)->known && !kept[nr])
            fprintf(stderr, " %s", mf__opcode(nr)->name);
    fprintf(stderr, "\n");
}

int main(int argc, char **argv)
{
    char mountpoint[] = "/tmp/record.XXXXXX", path[4096];
    struct utsname kernel;

    if (argc != 2)
        errx(2, "usage: record DIRECTORY");
    signal(SIGPIPE, SIG_IGN);
    setpgid(0, 0);
    alarm(120);
    if (!mkdtemp(mountpoint) || uname(&kernel) < 0)
        err(1, "mkdtemp");
    kernel.release[strcspn(kernel.release, ".") + 1 + strcspn(strchr(kernel.release, '.') + 1, ".")] = 0; /* 6.18 */
    for (size_t i = 0; i < MF__ARRAY_SIZE(variants); i++) {
        variant = &variants[i];
        memset(kept, 0, sizeof(kept));
        resent = copied = false;
        snprintf(path, sizeof(path), "%s/%s-%s.bin", argv[1], kernel.release, variant->name);
        out = fopen(path, "wb");
        if (!out)
            err(1, "%s", path);
        record(mountpoint);
        summary();
        if (fclose(out) != 0)
            err(1, "%s", path);
    }
    rmdir(mountpoint);
    return 0;
}
