/* SPDX-License-Identifier: MIT */
/* mount.h - options, making a mount, undoing it. Knows nothing of the protocol but the descriptor. */
#ifndef MF_MOUNT_H
#define MF_MOUNT_H

#include "base/base.h"

/* Flags of mount(2), with the kernel's values. Options are understood where no Linux headers are, too. */
enum mf__ms_flag {
    MF__MS_RDONLY = 0x1,
    MF__MS_NOSUID = 0x2,
    MF__MS_NODEV = 0x4,
    MF__MS_NOEXEC = 0x8,
    MF__MS_SYNCHRONOUS = 0x10,
    MF__MS_DIRSYNC = 0x80,
    MF__MS_NOATIME = 0x400,
    MF__MS_NODIRATIME = 0x800,
    MF__MS_RELATIME = 0x200000,
    MF__MS_STRICTATIME = 0x1000000,
    MF__MS_LAZYTIME = 0x2000000,
};

/* Mount options, parsed and validated. */
struct mf__mount_opts {
    unsigned long ms_flags; /* MF__MS_* */
    bool default_permissions;
    bool allow_other;
    bool allow_root;   /* the engine's ACL does it: asks the kernel for allow_other */
    bool auto_unmount; /* a helper unmounts when this process dies */
    bool file_root;    /* rootmode=100000: root and mount point are regular files, else directories */
    uint32_t max_read; /* 0 = none */
    uint32_t blksize;  /* 0 = none; only fuseblk, which mf__mount() does not make */
    char fsname[256];  /* "" = "manifuse" */
    char subtype[64];  /* "" = none */
};

/*
 * Parse the text after -o. -EINVAL: `err` names the option that is wrong and, where it is near one that
 * exists, that one; -EPERM: suid and dev are for root only. NULL text = no options. A backslash takes the
 * meaning from the character behind it: a comma, '=' or backslash in a value.
 */
int mf__mount_opts_parse(const char *text, struct mf__mount_opts *out, struct mf_error *err);

/* Letters to change, add, drop or swap with their neighbour to make `a` into `b`. Names beyond 32: far away. */
unsigned mf__edit_distance(const char *a, const char *b);

struct mf__mount {
    int fd;             /* the device, O_CLOEXEC; owned by whoever takes it (then set to -1) */
    int helper_sock;    /* auto_unmount: its helper unmounts when this closes; else -1 */
    char *path;         /* absolute, resolved */
    bool by_helper;     /* mounted through fusermount3: unmounted through it, too */
    uint64_t dev;       /* st_dev of the mounted filesystem's root as the kernel reports it in mountinfo; 0 = unknown */
    uint64_t mount_id;  /* as in mountinfo; the kernel gives it to a later mount again; 0 = unknown */
    uint64_t unique_id; /* never given twice (Linux 6.8); tells the mount from a successor at its path; 0 = unknown */
};

/*
 * Mount. With SYNC_INIT in the kernel the mount call itself waits for INIT to be answered: `on_device` is
 * called with the open device before the mount is made and returns when a thread of the caller's is reading
 * it (so INIT can be answered meanwhile); it is NULL where the caller answers INIT afterwards. Where SYNC_INIT
 * is not offered, or mount(2) or fusermount3 makes the mount, on_device is not called, and INIT waits at
 * out->fd.
 *
 * `after` is called once where on_device was and returned 0, when that attempt has ended (rc = its result), so
 * that the caller can collect the thread. The device is still open then. After a failure the thread's read may
 * go on waiting for a mount that never comes: a signal ends it. Where the attempt was refused for want of
 * permission, fusermount3 may still make a mount: then mf__mount() returns 0 after `after` was told otherwise,
 * and INIT waits at out->fd, which is another descriptor.
 *
 * 0, or -errno: nothing is mounted then, `out` holds nothing, and `err` says what to do. The mount point must
 * not be one of FUSE already (-EBUSY): the dead mount of a server that was killed, or a second start.
 */
struct mf__mount_hooks {
    int (*on_device)(int fd, void *user);
    void (*after)(int rc, void *user);
    void *user;
};
int mf__mount(const char *mountpoint, const struct mf__mount_opts *opts, const struct mf__mount_hooks *hooks,
              struct mf__mount *out, struct mf_error *err);

/*
 * Unmount lazily if what is mounted at the path is still ours. 0 also when it is gone already; -EBUSY: somebody
 * has mounted something on top of it.
 */
int mf__unmount(struct mf__mount *m);
/* Forget it: free path, close the helper's socket. */
void mf__mount_release(struct mf__mount *m);
/* Abort connection N through fusectl (mounted if need be and permitted). 0 or -errno. */
int mf__abort_connection(uint64_t connection);
/* N if the text is "/dev/fd/N", else -1. */
int mf__mount_fd_path(const char *mountpoint);

#endif
