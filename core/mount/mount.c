/* SPDX-License-Identifier: MIT */
/* mount.c - check the mount point, then mount: the new API, else mount(2), else fusermount3. */
#include <string.h>

#include "mount/internal.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEVICE "/dev/fuse"
#define IOC_SYNC_INIT _IO(229, 3)

/* The kernel's numbers: headers that are older than the kernel lack them, and some headers have them twice. */
enum { OPEN_CLOEXEC = 1, MOVE_EMPTY_PATH = 4 };
enum { SET_FLAG = 0, SET_STRING = 1, CMD_CREATE = 6 };
enum {
    ATTR_RDONLY = 0x1,
    ATTR_NOSUID = 0x2,
    ATTR_NODEV = 0x4,
    ATTR_NOEXEC = 0x8,
    ATTR_NOATIME = 0x10,
    ATTR_STRICTATIME = 0x20,
    ATTR_NODIRATIME = 0x80,
};

/* One mount as it is being made. */
struct attempt {
    const char *path;
    const struct mf__mount_opts *opts;
    const struct mf__mount_hooks *hooks;
    int fd;        /* the device */
    bool reading;  /* on_device was called: `after` is due */
    bool bound;    /* a filesystem was made on the device: it serves no other one */
    char why[256]; /* what failed last */
    struct mf__ident ident;
    int sock; /* of the process that unmounts (auto_unmount), else -1 */
};

/* ---- the mount point ------------------------------------------------------------------------------ */

static int bad_mountpoint(int rc, const char *path, struct mf_error *err)
{
    switch (rc) {
    case -ENOENT: return mf__errorf(err, rc, "mount point '%s' does not exist: make it first (mkdir)", path);
    case -ENOTDIR: return mf__errorf(err, rc, "mount point '%s': a part of the path is not a directory", path);
    case -EACCES: return mf__errorf(err, rc, "mount point '%s': no permission to reach it", path);
    case -ENOTCONN:
        return mf__errorf(err, rc,
                          "mount point '%s' is on a FUSE mount whose server is gone; unmount it first:"
                          " fusermount3 -u '%s'",
                          path, path);
    default: return mf__errorf(err, rc, "mount point '%s': %s", path, mf__strerror(rc));
    }
}

/* A mount on top of another FUSE mount is a second start, or hides the remains of a killed server. */
static int check_free(const char *path, int fd, struct mf_error *err)
{
    struct mf__mount_line line;
    struct mf__ident ident;

    if (mf__mount_identify_fd(fd, &ident) || mf__mount_line_find(path, ident.id, &line) || !mf__is_fuse_type(line.type))
        return 0;
    return mf__errorf(err, -EBUSY,
                      "'%s' is a FUSE mount already (%s of type %s, perhaps left by a server that was"
                      " killed); unmount it first: fusermount3 -u '%s'",
                      path, line.source, line.type, path);
}

static int check_type(const char *path, int fd, bool want_file, struct mf_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return bad_mountpoint(-errno, path, err);
    if (want_file ? S_ISREG(st.st_mode) : S_ISDIR(st.st_mode))
        return 0;
    if (want_file)
        return mf__errorf(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
                          "mount point '%s' is not a regular file, but"
                          " the option rootmode=100000 says that the root is one",
                          path);
    return mf__errorf(err, -ENOTDIR, "mount point '%s' is not a directory%s", path,
                      !S_ISREG(st.st_mode) ? "" : " (for a filesystem whose root is a file: -o rootmode=100000)");
}

/* realpath() asks for more than it needs of a name that ends in '/', and that is a request if it is FUSE's. */
static char *resolve(const char *mountpoint)
{
    size_t n = strlen(mountpoint);
    char *copy, *path;

    while (n > 1 && mountpoint[n - 1] == '/')
        n--;
    copy = strndup(mountpoint, n);
    path = copy ? realpath(copy, NULL) : NULL;
    n = (size_t)errno;
    free(copy);
    errno = (int)n;
    return path;
}

static int check_mountpoint(const char *mountpoint, const struct mf__mount_opts *opts, char **out, struct mf_error *err)
{
    char *path;
    int fd, rc;

    if (!mountpoint || !*mountpoint)
        return mf__errorf(err, -EINVAL, "no mount point was given");
    if (opts->blksize)
        return mf__errorf(err, -EINVAL, "mount option 'blksize' is for filesystems on block devices (fuseblk) only");
    path = resolve(mountpoint);
    if (!path)
        return bad_mountpoint(-errno, mountpoint, err);
    fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        rc = bad_mountpoint(-errno, path, err);
    } else {
        rc = check_free(path, fd, err);
        if (!rc)
            rc = check_type(path, fd, opts->file_root, err);
        close(fd);
    }
    if (rc)
        free(path);
    else
        *out = path;
    return rc;
}

/* ---- the device ------------------------------------------------------------------------------------ */

/* The descriptor, or -errno. -EACCES and -EPERM: somebody else may be permitted; `why` says so, not `err`. */
static int open_device(char *why, size_t size, struct mf_error *err)
{
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC), rc = -errno;

    if (fd >= 0)
        return fd;
    snprintf(why, size, "opening %s: %s", DEVICE, mf__strerror(rc));
    if (rc == -EACCES || rc == -EPERM)
        return rc;
    if (rc == -ENOENT)
        return mf__errorf(err, -ENODEV,
                          "there is no %s: load the fuse module (modprobe fuse), or give the container"
                          " the device",
                          DEVICE);
    if (rc == -ENODEV || rc == -ENXIO)
        return mf__errorf(err, -ENODEV, "%s has no driver: load the fuse module (modprobe fuse)", DEVICE);
    return mf__errorf(err, rc, "%s", why);
}

/* ---- what both ways of mounting need ---------------------------------------------------------------- */

static int failed(struct attempt *a, int rc, const char *what)
{
    snprintf(a->why, sizeof(a->why), "%s: %s", what, mf__strerror(rc));
    return rc;
}

/* auto_unmount: its process, or no mount at all. */
static int watch(struct attempt *a)
{
    int rc;

    if (!a->opts->auto_unmount)
        return 0;
    rc = mf__watch(a->path, &a->ident, &a->sock);
    return rc ? failed(a, rc, "starting the process that unmounts (auto_unmount)") : 0;
}

/* ---- the new mount API ----------------------------------------------------------------------------- */

#if defined(SYS_fsopen) && defined(SYS_move_mount)

/* What the kernel says in words about the last call; messages look like "e fuse: text". */
static int failed_config(struct attempt *a, int rc, int fs, const char *what)
{
    char text[160];
    ssize_t n;

    failed(a, rc, what);
    while ((n = read(fs, text, sizeof(text) - 1)) > 0) {
        size_t used = strlen(a->why);

        text[n] = '\0';
        text[strcspn(text, "\n")] = '\0';
        if (n > 2 && text[0] == 'e' && text[1] == ' ')
            snprintf(a->why + used, sizeof(a->why) - used, " (%s)", text + 2);
    }
    return rc;
}

static int set_string(struct attempt *a, int fs, const char *key, const char *value)
{
    if (syscall(SYS_fsconfig, fs, SET_STRING, key, value, 0) == 0)
        return 0;
    return failed_config(a, -errno, fs, key);
}

static int set_number(struct attempt *a, int fs, const char *key, const char *format, unsigned value)
{
    char text[16];

    snprintf(text, sizeof(text), format[0] == 'o' ? "%o" : "%u", value);
    return set_string(a, fs, key, text);
}

static int set_flag(struct attempt *a, int fs, const char *key, bool wanted)
{
    if (!wanted || syscall(SYS_fsconfig, fs, SET_FLAG, key, NULL, 0) == 0)
        return 0;
    return failed_config(a, -errno, fs, key);
}

static int configure(struct attempt *a, int fs)
{
    const struct mf__mount_opts *o = a->opts;
    int rc;

    if ((rc = set_string(a, fs, "source", o->fsname[0] ? o->fsname : MF__DEFAULT_FSNAME)) ||
        (o->subtype[0] && (rc = set_string(a, fs, "subtype", o->subtype))) ||
        (rc = set_number(a, fs, "fd", "u", (unsigned)a->fd)) ||
        (rc = set_number(a, fs, "rootmode", "o", o->file_root ? S_IFREG : S_IFDIR)) ||
        (rc = set_number(a, fs, "user_id", "u", getuid())) || (rc = set_number(a, fs, "group_id", "u", getgid())) ||
        (o->max_read && (rc = set_number(a, fs, "max_read", "u", o->max_read))) ||
        (rc = set_flag(a, fs, "default_permissions", o->default_permissions)) ||
        (rc = set_flag(a, fs, "allow_other", o->allow_other || o->allow_root)) ||
        (rc = set_flag(a, fs, "ro", o->ms_flags & MF__MS_RDONLY)) ||
        (rc = set_flag(a, fs, "sync", o->ms_flags & MF__MS_SYNCHRONOUS)) ||
        (rc = set_flag(a, fs, "dirsync", o->ms_flags & MF__MS_DIRSYNC)) ||
        (rc = set_flag(a, fs, "lazytime", o->ms_flags & MF__MS_LAZYTIME)))
        return rc;
    return 0;
}

/* Only now does anything bind to the device; with SYNC_INIT this waits until INIT has been answered. */
static int create(struct attempt *a, int fs)
{
    int rc;

    if (a->hooks && a->hooks->on_device && ioctl(a->fd, IOC_SYNC_INIT) == 0) {
        rc = a->hooks->on_device(a->fd, a->hooks->user);
        if (rc)
            return failed(a, rc, "starting to read the device");
        a->reading = true;
    }
    if (syscall(SYS_fsconfig, fs, CMD_CREATE, NULL, NULL, 0) == 0) {
        a->bound = true;
        return 0;
    }
    return failed_config(a, -errno, fs, "making the filesystem");
}

static unsigned mount_attributes(unsigned long flags)
{
    return (flags & MF__MS_RDONLY ? ATTR_RDONLY : 0u) | (flags & MF__MS_NOSUID ? ATTR_NOSUID : 0u) |
           (flags & MF__MS_NODEV ? ATTR_NODEV : 0u) | (flags & MF__MS_NOEXEC ? ATTR_NOEXEC : 0u) |
           (flags & MF__MS_NOATIME ? ATTR_NOATIME : 0u) | (flags & MF__MS_STRICTATIME ? ATTR_STRICTATIME : 0u) |
           (flags & MF__MS_NODIRATIME ? ATTR_NODIRATIME : 0u);
}

/* The mount can be told from others before anybody sees it, so that no moment is left without the watcher. */
static int attach(struct attempt *a, int fs)
{
    int rc, mnt = (int)syscall(SYS_fsmount, fs, OPEN_CLOEXEC, mount_attributes(a->opts->ms_flags));

    if (mnt < 0)
        return failed_config(a, -errno, fs, "fsmount");
    rc = mf__mount_identify_fd(mnt, &a->ident);
    rc = rc ? failed(a, rc, "telling the new mount from others") : watch(a);
    if (!rc && syscall(SYS_move_mount, mnt, "", AT_FDCWD, a->path, MOVE_EMPTY_PATH) < 0)
        rc = failed(a, -errno, "move_mount");
    close(mnt);
    return rc;
}

static int new_api(struct attempt *a)
{
    int rc, fs = (int)syscall(SYS_fsopen, "fuse", OPEN_CLOEXEC);

    if (fs < 0)
        return failed(a, -errno, "fsopen");
    rc = configure(a, fs);
    if (!rc)
        rc = create(a, fs);
    if (!rc)
        rc = attach(a, fs);
    close(fs);
    return rc;
}

#else

static int new_api(struct attempt *a)
{
    return failed(a, -ENOSYS, "fsopen");
}

#endif

/* ---- mount(2) -------------------------------------------------------------------------------------- */

/*
 * Whose mount is at the path now, seen from outside. The device knows the filesystem's number (Linux 6.18);
 * where the two differ, somebody else has mounted there in between, and the id is not ours.
 */
static void identify_by_path(const char *path, int fd, struct mf__ident *out)
{
    uint64_t connection = mf__fdinfo_number(fd, "fuse_connection");

    if (mf__mount_identify(path, out))
        memset(out, 0, sizeof(*out));
    if (connection && out->dev != makedev(0, (unsigned)connection))
        *out = (struct mf__ident){ .dev = makedev(0, (unsigned)connection) };
}

static int old_api(struct attempt *a)
{
    const struct mf__mount_opts *o = a->opts;
    const char *name = o->fsname[0] ? o->fsname : MF__DEFAULT_FSNAME;
    char type[80], data[256], read[32] = "", both[sizeof(o->fsname) + sizeof(o->subtype)];
    int rc;

    if (o->max_read)
        snprintf(read, sizeof(read), ",max_read=%u", o->max_read);
    snprintf(data, sizeof(data), "fd=%d,rootmode=%o,user_id=%u,group_id=%u%s%s%s", a->fd,
             o->file_root ? S_IFREG : S_IFDIR, (unsigned)getuid(), (unsigned)getgid(),
             o->default_permissions ? ",default_permissions" : "",
             o->allow_other || o->allow_root ? ",allow_other" : "", read);
    snprintf(type, sizeof(type), "fuse%s%s", o->subtype[0] ? "." : "", o->subtype);
    rc = mount(name, a->path, type, o->ms_flags, data) < 0 ? -errno : 0;
    if (rc == -ENODEV && o->subtype[0]) {
        /* A kernel that knows no subtypes: then it is told by the source, as ever. */
        snprintf(both, sizeof(both), "%s#%s", o->subtype, name);
        rc = mount(both, a->path, "fuse", o->ms_flags, data) < 0 ? -errno : 0;
    }
    if (rc)
        return failed(a, rc, "mount");
    a->bound = true;
    identify_by_path(a->path, a->fd, &a->ident);
    rc = watch(a);
    if (rc)
        mf__umount_if(a->path, &a->ident);
    return rc;
}

/* ---- one after the other ---------------------------------------------------------------------------- */

/* Can a failure be the new API's own: too old a kernel, or a filter of system calls that does not know it? */
static bool try_older(const struct attempt *a, int rc)
{
    return !a->bound && !a->reading && (rc == -ENOSYS || rc == -EPERM || rc == -EINVAL);
}

static int direct(struct attempt *a)
{
    int rc = new_api(a);

    if (rc && try_older(a, rc)) {
        struct attempt older = *a;
        int again = old_api(&older);

        /* Where both fail alike, the new API's text says more. */
        if (again != rc) {
            *a = older;
            rc = again;
        }
    }
    if (rc && a->sock >= 0) {
        close(a->sock);
        a->sock = -1;
    }
    if (a->reading && a->hooks->after)
        a->hooks->after(rc, a->hooks->user);
    return rc;
}

static int explain(const struct attempt *a, int rc, struct mf_error *err)
{
    if (rc == -ENODEV)
        return mf__errorf(err, rc, "this kernel has no FUSE: load the fuse module (modprobe fuse); %s", a->why);
    return mf__errorf(err, rc, "cannot mount at '%s': %s", a->path, a->why);
}

static int by_helper(struct attempt *a, struct mf__mount *out, struct mf_error *err)
{
    int rc = mf__helper_mount(a->path, a->opts, a->why, &out->fd, err);

    if (rc)
        return rc;
    out->by_helper = true;
    identify_by_path(a->path, out->fd, &a->ident);
    rc = watch(a);
    if (!rc)
        return 0;
    mf__helper_unmount(a->path);
    close(out->fd);
    out->fd = -1;
    return explain(a, rc, err);
}

int mf__mount(const char *mountpoint, const struct mf__mount_opts *opts, const struct mf__mount_hooks *hooks,
              struct mf__mount *out, struct mf_error *err)
{
    struct attempt a = { .opts = opts, .hooks = hooks, .fd = -1, .sock = -1 };
    char *path = NULL;
    int rc;

    memset(out, 0, sizeof(*out));
    out->fd = out->helper_sock = -1;
    rc = check_mountpoint(mountpoint, opts, &path, err);
    if (rc)
        return rc;
    a.path = path;
    rc = a.fd = open_device(a.why, sizeof(a.why), err);
    if (a.fd >= 0) {
        rc = direct(&a);
        if (rc)
            close(a.fd);
        else
            out->fd = a.fd;
        if (rc && rc != -EPERM && rc != -EACCES)
            explain(&a, rc, err);
    }
    if (rc == -EPERM || rc == -EACCES)
        rc = by_helper(&a, out, err);
    if (rc) {
        free(path);
        return rc;
    }
    out->path = path;
    out->helper_sock = a.sock;
    out->dev = a.ident.dev;
    out->mount_id = a.ident.id;
    out->unique_id = a.ident.unique_id;
    return 0;
}

#else

int mf__mount(const char *mountpoint, const struct mf__mount_opts *opts, const struct mf__mount_hooks *hooks,
              struct mf__mount *out, struct mf_error *err)
{
    (void)opts, (void)hooks;
    memset(out, 0, sizeof(*out));
    out->fd = out->helper_sock = -1;
    return mf__errorf(err, -ENOTSUP, "cannot mount at '%s': only Linux can", mountpoint ? mountpoint : "");
}

#endif
