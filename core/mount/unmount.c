/* SPDX-License-Identifier: MIT */
/* unmount.c - which mount is at a path, and undoing it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mount/internal.h"

int mf__mount_fd_path(const char *mountpoint)
{
    static const char prefix[] = "/dev/fd/";
    int n = 0;

    if (!mountpoint || strncmp(mountpoint, prefix, sizeof(prefix) - 1))
        return -1;
    mountpoint += sizeof(prefix) - 1;
    if (!*mountpoint || strlen(mountpoint) > 8)
        return -1;
    for (; *mountpoint; mountpoint++) {
        if (*mountpoint < '0' || *mountpoint > '9')
            return -1;
        n = n * 10 + (*mountpoint - '0');
    }
    return n;
}

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* The kernel's struct statx: the C library's may be too old to have mnt_id, or not exist. */
struct statx_reply {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, spare0;
    uint64_t ino, size, blocks, attributes_mask;
    uint64_t times[8];
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t mnt_id;
    uint64_t spare[13];
};
_Static_assert(sizeof(struct statx_reply) == 256, "struct statx");

#define ASK_MNT_ID 0x1000u
#define ASK_MNT_ID_UNIQUE 0x4000u
#define STAT_EMPTY_PATH 0x1000
#define STAT_NO_AUTOMOUNT 0x800
/* FUSE answers from what it has cached, so that a server can ask about its own mount, and a dead one is no harm. */
#define STAT_DONT_SYNC 0x4000

static int ask_statx(int fd, uint32_t mask, struct statx_reply *out)
{
#ifdef SYS_statx
    if (syscall(SYS_statx, fd, "", STAT_EMPTY_PATH | STAT_NO_AUTOMOUNT | STAT_DONT_SYNC, mask, out) == 0)
        return 0;
    return -errno;
#else
    (void)fd, (void)mask, (void)out;
    return -ENOSYS;
#endif
}

/* sprintf() is not async-signal-safe. `out` has room. */
static void put_path(char *out, const char *prefix, int fd)
{
    char digits[12];
    int n = 0;

    while (*prefix)
        *out++ = *prefix++;
    do
        digits[n++] = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    while (n)
        *out++ = digits[--n];
    *out = '\0';
}

uint64_t mf__fdinfo_number(int fd, const char *key)
{
    char path[48], text[1024], *at;
    uint64_t value = 0;
    ssize_t n;
    int info;

    put_path(path, "/proc/self/fdinfo/", fd);
    info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return 0;
    n = read(info, text, sizeof(text) - 1);
    close(info);
    text[n > 0 ? n : 0] = '\0';
    at = strstr(text, key);
    if (!at)
        return 0;
    for (at += strlen(key); *at == ':' || *at == ' ' || *at == '\t'; at++)
        ;
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

int mf__mount_identify_fd(int fd, struct mf__ident *out)
{
    struct statx_reply st;
    int rc;

    memset(out, 0, sizeof(*out));
    /* A mask of 0 is answered even to those whom FUSE refuses everything else. */
    rc = ask_statx(fd, 0, &st);
    if (!rc)
        out->dev = makedev(st.dev_major, st.dev_minor);
    if (!ask_statx(fd, ASK_MNT_ID_UNIQUE, &st) && (st.mask & ASK_MNT_ID_UNIQUE))
        out->unique_id = st.mnt_id;
    if (!ask_statx(fd, ASK_MNT_ID, &st) && (st.mask & ASK_MNT_ID))
        out->id = st.mnt_id;
    else
        out->id = mf__fdinfo_number(fd, "mnt_id");
    return out->id ? 0 : rc;
}

/* O_PATH opens nothing in the filesystem itself: no request is sent for it. */
static int open_path(const char *path)
{
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int mf__mount_identify(const char *path, struct mf__ident *out)
{
    int fd = open_path(path), rc;

    if (fd < 0)
        return fd;
    rc = mf__mount_identify_fd(fd, out);
    close(fd);
    return rc;
}

/* What one side does not know does not count, but something must be known. */
static bool same(const struct mf__ident *a, const struct mf__ident *b)
{
    if (a->unique_id && b->unique_id)
        return a->unique_id == b->unique_id;
    if (a->dev && b->dev && a->dev != b->dev)
        return false;
    if (a->id && b->id)
        return a->id == b->id;
    return a->dev && b->dev;
}

int mf__umount_if(const char *path, const struct mf__ident *ident)
{
    struct mf__ident now;
    char self[48];
    int fd, rc;

    fd = open_path(path);
    if (fd == -ENOENT || fd == -ENOTDIR)
        return -ESTALE;
    if (fd < 0)
        return fd;
    rc = mf__mount_identify_fd(fd, &now);
    if (!rc && !same(&now, ident))
        rc = -ESTALE;
    /* By the descriptor, not the path: what is unmounted is what was looked at, whatever came over it since. */
    put_path(self, "/proc/self/fd/", fd);
    if (!rc && umount2(self, MNT_DETACH) < 0)
        rc = -errno;
    if (rc == -ENOENT && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        rc = 0; /* there is no /proc */
    close(fd);
    return rc == -EINVAL ? -ESTALE : rc;
}

/* What it says is for people: whether the mount is still there tells whether it worked. */
static int unmount_by_helper(const char *path, const struct mf__ident *ident)
{
    struct mf__ident now;
    int rc = mf__helper_unmount(path);

    if (!rc && !mf__mount_identify(path, &now) && same(&now, ident))
        rc = -EPERM;
    return rc;
}

/*
 * Something else is at the path: is ours below it? It cannot be unmounted from there without taking down what
 * covers it. Where the one on top has our id, ours is gone and the id was given away again.
 */
static bool is_covered(const struct mf__mount *m)
{
    struct mf__mount_line line;
    struct mf__ident top;

    return m->mount_id && !mf__mount_identify(m->path, &top) && top.id != m->mount_id &&
           !mf__mount_line_find(m->path, m->mount_id, &line) && line.dev == m->dev;
}

int mf__unmount(struct mf__mount *m)
{
    struct mf__ident ident = { .dev = m->dev, .id = m->mount_id, .unique_id = m->unique_id };
    int rc;

    if (!m->path || (!ident.dev && !ident.id && !ident.unique_id))
        return 0;
    rc = mf__umount_if(m->path, &ident);
    if (rc == -EPERM)
        rc = unmount_by_helper(m->path, &ident);
    if (rc == -ESTALE)
        rc = is_covered(m) ? -EBUSY : 0;
    if (!rc)
        m->dev = m->mount_id = m->unique_id = 0;
    return rc;
}

void mf__mount_release(struct mf__mount *m)
{
    if (m->helper_sock >= 0)
        close(m->helper_sock);
    m->helper_sock = -1;
    free(m->path);
    m->path = NULL;
}

static int write_abort(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, "1", 1) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

int mf__abort_connection(uint64_t connection)
{
    static const char control[] = "/sys/fs/fuse/connections";
    char path[96];
    int rc;

    if (!connection || connection > INT32_MAX)
        return -EINVAL;
    put_path(path, "/sys/fs/fuse/connections/", (int)connection);
    strcat(path, "/abort");
    rc = write_abort(path);
    if (rc != -ENOENT)
        return rc;
    /* Either the connection is gone, or nobody has mounted the control filesystem yet. */
    if (mount("none", control, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 && errno != EBUSY)
        return errno == EPERM ? rc : -errno;
    return write_abort(path);
}

bool mf__is_fuse_type(const char *type)
{
    size_t n = strcspn(type, ".");

    return (n == 4 && !strncmp(type, "fuse", n)) || (n == 7 && !strncmp(type, "fuseblk", n));
}

/* Is the word at `text`, in which \ooo stands for a byte, this path? */
static bool names_path(const char *text, const char *path)
{
    for (; *text && *text != ' '; path++) {
        char c = *text++;

        if (c == '\\' && text[0] >= '0' && text[0] <= '3' && text[1] && text[2]) {
            c = (char)((text[0] - '0') * 64 + (text[1] - '0') * 8 + (text[2] - '0'));
            text += 3;
        }
        if (c != *path)
            return false;
    }
    return !*path;
}

static const char *skip_words(const char *at, int n)
{
    while (at && n--) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at;
}

static void copy_word(char *out, size_t size, const char *word)
{
    size_t n = strcspn(word, " ");

    if (n >= size)
        n = size - 1;
    memcpy(out, word, n);
    out[n] = '\0';
}

/* `id parent major:minor root mountpoint options [tag...] - type source super-options` */
static bool parse_line(const char *line, const char *path, uint64_t id, struct mf__mount_line *out)
{
    const char *point = skip_words(line, 4), *rest = strstr(line, " - ");
    char *end;
    unsigned long major;

    if (!point || !rest || !names_path(point, path))
        return false;
    if (id && strtoull(line, NULL, 10) != id)
        return false;
    out->id = strtoull(line, NULL, 10);
    major = strtoul(skip_words(line, 2), &end, 10);
    out->dev = makedev((unsigned)major, (unsigned)strtoul(*end ? end + 1 : end, NULL, 10));
    copy_word(out->type, sizeof(out->type), rest + 3);
    copy_word(out->source, sizeof(out->source), skip_words(rest + 3, 1));
    return true;
}

/* The whole of a file in /proc, whose size cannot be asked. NULL and errno. */
static char *slurp(const char *path)
{
    size_t size = 16384, used = 0;
    char *text = malloc(size), *more;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;

    while (fd >= 0 && text && (n = read(fd, text + used, size - used - 1)) > 0) {
        used += (size_t)n;
        if (size - used > 4096)
            continue;
        more = realloc(text, size *= 2);
        n = more ? n : -1;
        if (!more)
            break;
        text = more;
    }
    if (fd >= 0)
        close(fd);
    if (n < 0) {
        free(text);
        return NULL;
    }
    text[used] = '\0';
    return text;
}

int mf__mount_line_find(const char *path, uint64_t id, struct mf__mount_line *out)
{
    char *text = slurp("/proc/self/mountinfo"), *line, *save;
    int rc = -ENOENT;

    if (!text)
        return -EIO;
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct mf__mount_line found;

        if (parse_line(line, path, id, &found)) {
            *out = found;
            rc = 0;
        }
    }
    free(text);
    return rc;
}

#else

int mf__unmount(struct mf__mount *m)
{
    (void)m;
    return -ENOTSUP;
}

void mf__mount_release(struct mf__mount *m)
{
    free(m->path);
    m->path = NULL;
}

int mf__abort_connection(uint64_t connection)
{
    (void)connection;
    return -ENOTSUP;
}

#endif
