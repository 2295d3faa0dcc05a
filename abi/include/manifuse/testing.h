/* SPDX-License-Identifier: MIT */
/**
 * @file testing.h  A virtual kernel: test a filesystem with no mount, no root and no /dev/fuse.
 *
 * The virtual kernel plays the kernel's side of a connection in memory: one queue of requests, one list of
 * requests in hand per descriptor, clones, interrupts, forgets, abort and unmount, with the rules and
 * errors of the real one. A client on top of it does what programs do with files.
 *
 * The calls return 0 or a result, or the negative errno that a program would have seen; -ETIMEDOUT where
 * the filesystem did not answer within the limit of mf_vkernel_set_timeout() (default 10 s). They block
 * until the answer is there and may be called from any threads at once.
 */
#ifndef MANIFUSE_TESTING_H
#define MANIFUSE_TESTING_H

#include <manifuse/manifuse.h>

#ifdef __cplusplus
extern "C" {
#endif

struct mf_vkernel;

/** What the virtual kernel offers at INIT; zero = what Linux 6.18 does. */
struct mf_vkernel_opts {
    uint32_t size;          /**< sizeof(struct mf_vkernel_opts) */
    uint32_t minor;         /**< protocol minor; 0 = 45 */
    uint64_t flags;         /**< INIT flags; 0 = those of Linux 6.18 */
    uint32_t clone_fail_at; /**< the n-th clone and all later ones fail; 0 = none */
    uint32_t clone_errno;   /**< with which errno; 0 = EINVAL */
    uint32_t uid, gid, pid; /**< the client's credentials */
    uint32_t queues; /**< possible CPUs, each with a queue of requests over io_uring; 0 = io_uring is not offered */
};

/** @return 0 or -ENOMEM. Ownership: the caller frees *out after the session that is attached to it. */
MF_API int mf_vkernel_new(const struct mf_vkernel_opts *opts, struct mf_vkernel **out);
/** Unmounts if need be. */
MF_API void mf_vkernel_free(struct mf_vkernel *vk);
/** Connect a session to it and do the handshake: in place of mf_session_mount(). Then run the session. */
MF_API int mf_session_attach_vkernel(struct mf_session *s, struct mf_vkernel *vk, struct mf_error *err);
MF_API void mf_vkernel_set_timeout(struct mf_vkernel *vk, uint32_t milliseconds);
/** As umount -l of the last user: readers see the end. */
MF_API void mf_vkernel_unmount(struct mf_vkernel *vk);
/** As a write to /sys/fs/fuse/connections/N/abort. */
MF_API void mf_vkernel_abort(struct mf_vkernel *vk);
/** Requests queued or in hand: nothing of a finished test may be left. */
MF_API uint64_t mf_vkernel_pending(struct mf_vkernel *vk);
/** Requests that were read from the descriptor with this index (0 = the first, n = the n-th clone). */
MF_API uint64_t mf_vkernel_reads(struct mf_vkernel *vk, uint32_t channel);
/** Replies that were refused: wrong descriptor, unknown id, wrong size. A correct engine has none. */
MF_API uint64_t mf_vkernel_bad_replies(struct mf_vkernel *vk);

/**
 * Send one raw request and wait for its raw answer.
 * @param opcode  kernel opcode; @param in,in_len  everything after the 40-byte header
 * @param out,out_len  receives the body of the reply; *out_len is its room, then its length
 * @return 0 or the reply's negative errno
 */
MF_API int mf_client_raw(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                         void *out, uint64_t *out_len);
/** Send without waiting; *unique receives the id. */
MF_API int mf_client_send(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                          uint64_t *unique);
/** Wait for the answer of mf_client_send(). */
MF_API int mf_client_wait(struct mf_vkernel *vk, uint64_t unique, void *out, uint64_t *out_len);
/** The caller of `unique` got a signal: queue an INTERRUPT. -ENOENT: not in hand. */
MF_API int mf_client_interrupt(struct mf_vkernel *vk, uint64_t unique);

/* By node, as the kernel asks. */
MF_API int mf_client_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct mf_entry *out);
MF_API int mf_client_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup);
MF_API int mf_client_getattr(struct mf_vkernel *vk, uint64_t node, struct mf_attr *out);
MF_API int mf_client_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, uint64_t *fh);
MF_API int64_t mf_client_read(struct mf_vkernel *vk, uint64_t node, uint64_t fh, void *buf, uint64_t length,
                              uint64_t offset);
MF_API int64_t mf_client_write(struct mf_vkernel *vk, uint64_t node, uint64_t fh, const void *buf, uint64_t length,
                               uint64_t offset);
MF_API int mf_client_release(struct mf_vkernel *vk, uint64_t node, uint64_t fh);

/* By path, as programs do: each resolves from the root, and forgets what it looked up. */
MF_API int mf_client_stat(struct mf_vkernel *vk, const char *path, struct mf_attr *out);
/** The whole file: at most *length bytes, *length becomes the number. -EFBIG: larger than the buffer. */
MF_API int mf_client_read_file(struct mf_vkernel *vk, const char *path, void *buf, uint64_t *length);
/** Create or truncate, write, close. */
MF_API int mf_client_write_file(struct mf_vkernel *vk, const char *path, const void *data, uint64_t length,
                                uint32_t mode);
/** Names, each with its NUL, one after the other, without "." and "..". -ERANGE: too small; *length says what is needed. */
MF_API int mf_client_list(struct mf_vkernel *vk, const char *path, char *names, uint64_t *length);
MF_API int mf_client_readlink(struct mf_vkernel *vk, const char *path, char *target, uint64_t *length);
MF_API int mf_client_mkdir(struct mf_vkernel *vk, const char *path, uint32_t mode);
MF_API int mf_client_symlink(struct mf_vkernel *vk, const char *path, const char *target);
MF_API int mf_client_mknod(struct mf_vkernel *vk, const char *path, uint32_t mode, uint32_t rdev);
MF_API int mf_client_link(struct mf_vkernel *vk, const char *path, const char *newpath);
MF_API int mf_client_unlink(struct mf_vkernel *vk, const char *path);
MF_API int mf_client_rmdir(struct mf_vkernel *vk, const char *path);
MF_API int mf_client_rename(struct mf_vkernel *vk, const char *path, const char *newpath, uint32_t flags);
MF_API int mf_client_truncate(struct mf_vkernel *vk, const char *path, uint64_t length);
MF_API int mf_client_chmod(struct mf_vkernel *vk, const char *path, uint32_t mode);
MF_API int mf_client_statfs(struct mf_vkernel *vk, struct mf_statfs *out);
MF_API int mf_client_access(struct mf_vkernel *vk, const char *path, uint32_t mask);
MF_API int mf_client_setxattr(struct mf_vkernel *vk, const char *path, const char *name, const void *value,
                              uint64_t length, uint32_t flags);
MF_API int64_t mf_client_getxattr(struct mf_vkernel *vk, const char *path, const char *name, void *buf,
                                  uint64_t length);
MF_API int64_t mf_client_listxattr(struct mf_vkernel *vk, const char *path, char *buf, uint64_t length);
MF_API int mf_client_removexattr(struct mf_vkernel *vk, const char *path, const char *name);

#ifdef __cplusplus
}
#endif
#endif
