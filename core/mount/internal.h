/* SPDX-License-Identifier: MIT */
/* internal.h - what the files of core/mount share. */
#ifndef MF_MOUNT_INTERNAL_H
#define MF_MOUNT_INTERNAL_H

#include "mount/mount.h"

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/mount.h>

#define MF__DEFAULT_FSNAME "manifuse"

/*
 * Which mount a path leads to. Neither number stays for ever: the kernel gives that of a device and `id` to
 * the next mount; `unique_id` is never used twice, but only Linux 6.8 and newer have it. 0 = unknown.
 */
struct mf__ident {
    uint64_t dev;
    uint64_t id;
    uint64_t unique_id;
};

/*
 * Identify what is at a path (a symbolic link at its end is not followed), or the mount of a descriptor. Sends
 * no request to the server of a FUSE filesystem that is mounted there. Async-signal-safe. 0 or -errno.
 */
int mf__mount_identify(const char *path, struct mf__ident *out);
int mf__mount_identify_fd(int fd, struct mf__ident *out);

/*
 * Lazily unmount what is at `path` if it is `ident`. 0; -ESTALE: something else is there, or nothing;
 * -errno. Async-signal-safe.
 */
int mf__umount_if(const char *path, const struct mf__ident *ident);

/* Where "KEY:" stands in /proc/self/fdinfo/FD, the number behind it; else 0. Async-signal-safe. */
uint64_t mf__fdinfo_number(int fd, const char *key);

/* A line of /proc/self/mountinfo. */
struct mf__mount_line {
    uint64_t id; /* the one that may be used again */
    uint64_t dev;
    char type[64];
    char source[128];
};
/* The last line for exactly this path, with this id unless it is 0. 0; -ENOENT: there is none; -errno. */
int mf__mount_line_find(const char *path, uint64_t id, struct mf__mount_line *out);
/* Is the type that of a FUSE filesystem: fuse, fuseblk, or one of these with a subtype? */
bool mf__is_fuse_type(const char *type);

/* helper.c: how long fusermount3 may take to mount. Tests shorten it. */
extern int mf__helper_mount_ms;
/* helper.c: mount through fusermount3; *fd is the device. `why` made it necessary. */
int mf__helper_mount(const char *path, const struct mf__mount_opts *opts, const char *why, int *fd,
                     struct mf_error *err);
/* helper.c: fusermount3 -u -z. 0: it has ended, look what came of it; -errno: it could not be run. */
int mf__helper_unmount(const char *path);
/* helper.c: where fusermount3 is, as an absolute path. */
bool mf__helper_find(char *out, size_t size);

/* watch.c: a detached process that unmounts when *sock, and every copy of it, is closed. */
int mf__watch(const char *path, const struct mf__ident *ident, int *sock);

#endif
#endif
