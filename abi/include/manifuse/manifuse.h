/* SPDX-License-Identifier: MIT */
/**
 * @file manifuse.h  Filesystems in userspace: sessions, readers, requests and answers.
 *
 * Functions return 0 or a positive result, or a negative errno. Set-up calls take an optional
 * struct mf_error that says in words what is wrong. Strings are NUL-terminated bytes. Unless a function
 * says otherwise it may be called from any thread, and it does not block.
 *
 * A session's life: mf_session_new, then one of mf_session_mount, mf_session_attach_fds (or
 * mf_session_from_fd_initialized instead of both), then mf_session_run, then mf_session_free.
 */
#ifndef MANIFUSE_MANIFUSE_H
#define MANIFUSE_MANIFUSE_H

#include <manifuse/types.h>
#include <manifuse/version.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- library ------------------------------------------------------------------------------------ */

/** Version of the library that is running, as in MF_VERSION_STRING. */
MF_API const char *mf_version(void);

/** Set all options to their defaults. `size` is sizeof(struct mf_session_opts) at the caller. */
MF_API void mf_session_opts_init(struct mf_session_opts *opts, uint32_t size);

/** Name of an operation by opcode ("LOOKUP"), NULL for a number that is none. */
MF_API const char *mf_op_name(uint32_t opcode);

/* ---- sessions ----------------------------------------------------------------------------------- */

/**
 * Make a session that calls typed C operations.
 *
 * @param ops   operations; copied
 * @param user  given to each of them
 * @param opts  NULL = defaults; copied
 * @param out   receives the session
 * @return 0; -EINVAL an option is out of range; -E2BIG a structure is newer than the library; -ENOMEM
 *
 * Ownership: the caller frees *out with mf_session_free(). Since: MF_0.1
 */
MF_API int mf_session_new(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts,
                          struct mf_session **out, struct mf_error *err);

/** Make a session that calls one function for all operations: what language bindings use. */
MF_API int mf_session_new_upcall(const struct mf_upcall_ops *ops, void *user, const struct mf_session_opts *opts,
                                 struct mf_session **out, struct mf_error *err);

/**
 * Mount at `mountpoint` and agree with the kernel on the protocol: when this returns, the first program
 * that looks at the mount is served as soon as mf_session_run() runs. Tries the system calls first and
 * fusermount3 where they are not permitted.
 *
 * @return 0; -ENOENT, -ENOTDIR, -EACCES about the mount point; -EPERM neither way is permitted;
 *         -EINVAL a mount option is wrong; -ENODEV no FUSE in this kernel or no /dev/fuse; -EBUSY mounted
 *         already; -EPROTO the kernel's protocol is too old (before 7.31); with MF_CLONE_REQUIRE the
 *         clone's own errno. `err` names what was wrong.
 *
 * A mount point of the form /dev/fd/N attaches to that descriptor instead, as mf_session_attach_fds(), and so
 * makes the session its owner.
 * Blocks: until the handshake is done. Threads: one at a time per session.
 */
MF_API int mf_session_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err);

/**
 * Serve a mount that somebody else made: n descriptors of /dev/fuse, the first bound to the mount and the
 * others its clones. The handshake is still to come and is done here, on fds[0]. With n > 1 the session has
 * at least n readers.
 *
 * @return 0; -EBADF, -ENOTTY: not a descriptor of /dev/fuse; -EPERM: not bound to a mount
 *
 * Ownership: the session closes the descriptors, on success only. Blocks: until the handshake is done.
 */
MF_API int mf_session_attach_fds(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err);

/**
 * A further session on a connection whose handshake is done: on `fd`, a clone made by
 * mf_session_clone_fd() here or in another process, under the terms that mf_session_negotiated() reported.
 *
 * @param neg  terms; `neg->size` bytes of them
 * @return 0; -EINVAL the terms are not of this format or impossible; -E2BIG newer; -EPROTONOSUPPORT the
 *         connection uses what this library lacks; -EBADF, -ENOTTY fd is no descriptor of /dev/fuse
 *
 * Ownership: the session closes fd, on success only.
 */
MF_API int mf_session_from_fd_initialized(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts,
                                          int fd, const struct mf_negotiated *neg, struct mf_session **out,
                                          struct mf_error *err);

/** The same for a session that calls one function for all operations. */
MF_API int mf_session_from_fd_initialized_upcall(const struct mf_upcall_ops *ops, void *user,
                                                 const struct mf_session_opts *opts, int fd,
                                                 const struct mf_negotiated *neg, struct mf_session **out,
                                                 struct mf_error *err);

/**
 * A new descriptor of the same connection, by FUSE_DEV_IOC_CLONE. A request that is read from it must be
 * answered on it.
 *
 * @return 0; -ENOTCONN not mounted yet, or gone; -ENOTSUP the platform has no clones; the open's or ioctl's errno
 *
 * Ownership: the caller closes *fd. It is O_CLOEXEC.
 */
MF_API int mf_session_clone_fd(struct mf_session *s, int *fd);

/**
 * The terms of the connection.
 *
 * @param size  sizeof(struct mf_negotiated) at the caller; fields beyond it are not written
 * @return 0; -ENOTCONN no handshake yet
 */
MF_API int mf_session_negotiated(struct mf_session *s, struct mf_negotiated *out, uint32_t size);

/** Whether this library can join a connection with these terms: 0 or the error that it would meet. */
MF_API int mf_negotiated_check(const struct mf_negotiated *neg, struct mf_error *err);

/**
 * One more reader, on a clone where the session clones: for a session that runs, or is about to. Over io_uring it is
 * one more for each ring that comes to need it.
 *
 * @return the reader's index; -ENOTCONN not mounted, or over; the clone's error with MF_CLONE_REQUIRE
 */
MF_API int mf_session_add_reader(struct mf_session *s);

/**
 * Serve until the mount is gone, mf_session_stop() or failure. Returns when no handler runs any more; the
 * mount that the session made is gone then. The same as start, wait and finish below.
 *
 * @return 0 a clean end; -ENOTCONN nothing to serve; -EBUSY it runs already; -ETIMEDOUT handlers did not end
 *         in time and the connection was aborted; -ECONNABORTED aborted by the administrator; else the
 *         transport's error
 * Blocks: yes. Threads: any, one at a time per session.
 */
MF_API int mf_session_run(struct mf_session *s);

/** Start the readers and return: the first part of mf_session_run(). */
MF_API int mf_session_start(struct mf_session *s);

/**
 * Wait until the session has ended of itself or by mf_session_stop().
 *
 * @param timeout_ms  milliseconds; negative = without limit
 * @return 0 it has ended: call mf_session_finish(); -ETIMEDOUT; -EINTR a signal handler ran
 * Blocks: yes.
 */
MF_API int mf_session_wait(struct mf_session *s, int timeout_ms);

/** End the readers, unmount, call destroy: the last part of mf_session_run(), with its results. Blocks: yes. */
MF_API int mf_session_finish(struct mf_session *s);

/**
 * Ask the session to end: readers stop when their handlers have returned. Also from within a handler and
 * from a signal handler.
 */
MF_API void mf_session_stop(struct mf_session *s);

/** Unmount now, lazily; the session then ends. 0 or -errno. -ENOTCONN: this session made no mount. */
MF_API int mf_session_unmount(struct mf_session *s);

/**
 * Free a session that does not run. Unmounts what it mounted. NULL is accepted. Blocks: shortly.
 *
 * Ownership: requests that were kept die with it; no thread may hold one any more.
 */
MF_API void mf_session_free(struct mf_session *s);

/** What the session became. `out->size` says how much may be written. */
MF_API int mf_session_info(struct mf_session *s, struct mf_info *out);

/** Counters of one reader since the start. -ENOENT: no such reader. May be called while it runs. */
MF_API int mf_session_stats(struct mf_session *s, uint32_t reader, struct mf_reader_stats *out);

/**
 * Write one line of JSON per reader to a descriptor: {"reader":0,"fd":5,"requests":123,...}; once the session has run,
 * one for the device: {"device":0,"readers":2,"blocked":..,"opened":..,"growths":..,"shrinks":..}, and one per ring:
 * {"ring":0,"readers":2,"requests":123,"own":..,"waits":..,"batches":..,"calls":..,"blocked":..,...}. calls and
 * blocked tell how often another reader took over since a handler might wait, or did; opened, how often so many did
 * that all readers of the device were let in; own, how many of the requests came where one reader alone waits, as
 * they do while handlers wait often; led, how many callers that had waited were woken so that the scheduler looks for
 * an idle CPU, since another calls without pause on theirs. What the example programs print to standard error at a
 * clean end where the environment has MANIFUSE_STATS=1.
 */
MF_API int mf_session_write_stats(struct mf_session *s, int fd);

/** The mount point, or NULL. Ownership: the session's. */
MF_API const char *mf_session_mountpoint(struct mf_session *s);

/* ---- requests ----------------------------------------------------------------------------------- */

/** The decoded request. Valid until it is answered. Threads: the one that holds the request. */
MF_API const struct mf_call *mf_req_call(struct mf_req *req);

/** The session that the request belongs to. */
MF_API struct mf_session *mf_req_session(struct mf_req *req);

/**
 * Keep the request beyond the handler: somebody will answer it later.
 *
 * @return 0; -EALREADY answered already; -EINVAL it takes no answer (forget)
 * Threads: the handler's, before it returns.
 */
MF_API int mf_req_defer(struct mf_req *req);

/** 1 if the caller gave up (answer EINTR soon), 0 if not, -EALREADY answered. Threads: any. */
MF_API int mf_req_interrupted(struct mf_req *req);

/*
 * Answers. Exactly one per request, from any thread: 0, or -EALREADY: answered before, and nothing was
 * touched; -EINVAL: not an answer for this request, or bad values: it was answered with EIO; -ENOENT: the
 * kernel no longer waits for it; else the transport's error. All block no longer than one system call.
 *
 * Over io_uring an answer that is given within its handler may go out when the handler has returned, together with others,
 * if handlers of that operation have returned at once of late. Should one go on all the same, its client has the answer
 * some milliseconds later, and where they often do, at once.
 */

/** Refuse: `error` is a positive errno below 512 (0 = success without a body). */
MF_API int mf_reply_err(struct mf_req *req, int error);
MF_API int mf_reply_entry(struct mf_req *req, const struct mf_entry *entry);
MF_API int mf_reply_attr(struct mf_req *req, const struct mf_attr *attr, uint64_t timeout_ns);
MF_API int mf_reply_open(struct mf_req *req, const struct mf_open *open);
MF_API int mf_reply_create(struct mf_req *req, const struct mf_entry *entry, const struct mf_open *open);
/** Bytes for read, readdir, readlink, getxattr, listxattr. At most what was asked for. Copied. */
MF_API int mf_reply_data(struct mf_req *req, const void *data, uint64_t length);
/** The first `length` bytes of mf_req_buffer(), without a further copy. */
MF_API int mf_reply_buffer(struct mf_req *req, uint64_t length);
/** Bytes from a descriptor, read by the engine; fewer where it ends. The language never sees them. */
MF_API int mf_reply_fd(struct mf_req *req, int fd, uint64_t offset, uint64_t length);
MF_API int mf_reply_write(struct mf_req *req, uint64_t written);
MF_API int mf_reply_statfs(struct mf_req *req, const struct mf_statfs *st);
/** Size that getxattr or listxattr needs, where the request's length is 0. */
MF_API int mf_reply_xattr_size(struct mf_req *req, uint64_t needed);
MF_API int mf_reply_lseek(struct mf_req *req, uint64_t offset);
MF_API int mf_reply_lock(struct mf_req *req, const struct mf_lock *lock);

/** Memory in which an answer of bytes may be built. *length receives its size. NULL: the request has none. */
MF_API void *mf_req_buffer(struct mf_req *req, uint64_t *length);

/**
 * Append one directory entry to a readdir's buffer.
 *
 * @param name    not empty, no '/', at most 4095 bytes
 * @param type    S_IFMT bits, or 0 if unknown
 * @param next    cookie with which a later readdir goes on after this entry
 * @return 0; -ENOSPC full: leave it for the next call; -EINVAL bad name or not a readdir
 */
MF_API int mf_dirent_add(struct mf_req *req, const char *name, uint64_t name_len, uint64_t ino, uint32_t type,
                         uint64_t next);
/** Send the entries that were added. None = the end of the directory. */
MF_API int mf_reply_dirents(struct mf_req *req);

/** The same as mf_dirent_add() on plain memory: returns the bytes written at buf + used, or -ENOSPC, -EINVAL. */
MF_API int64_t mf_dirent_put(void *buf, uint64_t size, uint64_t used, const char *name, uint64_t name_len, uint64_t ino,
                             uint32_t type, uint64_t next);

/* ---- notifications ------------------------------------------------------------------------------- */

/**
 * Tell the kernel to forget cached attributes and, where offset >= 0, data of a node.
 * @return 0 (also where it had none); -ENOTCONN
 * Blocks: until the kernel has done it. Never call it from a handler of the same node.
 */
MF_API int mf_notify_inval_inode(struct mf_session *s, uint64_t node, int64_t offset, int64_t length);
/** Tell the kernel to forget a name. The warnings of mf_notify_inval_inode() hold for the parent. */
MF_API int mf_notify_inval_entry(struct mf_session *s, uint64_t parent, const char *name, uint64_t name_len);

/* ---- programs ------------------------------------------------------------------------------------ */

/** A command line of a filesystem program, parsed. */
struct mf_cmdline {
    uint32_t size;          /**< sizeof(struct mf_cmdline) */
    uint32_t show_help;     /**< 1: --help was given; print `text` and exit 0 */
    const char *source;     /**< first of two positional arguments, or NULL */
    const char *mountpoint; /**< last positional argument */
    char options[1024];     /**< storage of opts.mount_options */
    char text[1024];        /**< usage or error text */
    struct mf_session_opts opts;
};

/**
 * Parse `[SOURCE] MOUNTPOINT [--readers N] [--clone off|auto|require] [--uring off|auto|require]
 * [--placement auto|pinned|free] [-o option[,option]] [--debug] [--help]`. One dash serves as well as two.
 *
 * @param wants_source  1: two positional arguments are needed, 0: one
 * @return 0; -EINVAL: `out->text` says what is wrong
 * Ownership: out points into argv.
 */
MF_API int mf_cmdline_parse(int argc, char **argv, int wants_source, struct mf_cmdline *out);

/** All of a program's main(): parse, mount, serve with signals handled, unmount. Returns the exit status. */
MF_API int mf_main(int argc, char **argv, const struct mf_ops *ops, void *user);

#ifdef __cplusplus
}
#endif
#endif
