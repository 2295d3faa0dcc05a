//go:build !manifuse_system

/* SPDX-License-Identifier: MIT */
/* Generated from core/ and abi/include/ by tools/amalgamate.py; do not edit. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

/* ==== core/api/request.c ==== */
/* SPDX-License-Identifier: MIT */
/* request.c - the exported calls on requests: asking about one, keeping it, answering it. */
#include <string.h>

/* core/session/session.h */
/* SPDX-License-Identifier: MIT */
/*
 * session.h - a session, its readers and the requests that they hold. The comment at each structure says
 * who writes it: that is what keeps the hot path free of locks and of cache lines that two threads write.
 */
#ifndef MF_SESSION_H
#define MF_SESSION_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

/* abi/include/manifuse/manifuse.h */
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

/* abi/include/manifuse/types.h */
/* SPDX-License-Identifier: MIT */
/**
 * @file types.h  Constants and structures of the interface.
 *
 * Every structure that may grow begins with `size`, which its maker sets to sizeof(the structure). A
 * smaller size means that the fields beyond it have their defaults (zero); a larger one is accepted where
 * all bytes beyond what this library knows are zero, and refused with -E2BIG otherwise. New fields are
 * only ever appended. There are no bit fields, and nothing here depends on the compiler's mood: every field
 * has a fixed width and natural alignment, pointers excepted.
 */
#ifndef MANIFUSE_TYPES_H
#define MANIFUSE_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct mf_session; /**< one mount as seen by one set of readers */
struct mf_req;     /**< one request that waits for its answer */

#define MF_ROOT 1ull                   /**< node id of the root directory */
#define MF_NO_FH 0xffffffffffffffffull /**< mf_call.fh where the request names no file handle */
#define MF_SECOND 1000000000ull        /**< one second in the nanoseconds that all time-outs use */

/**
 * Operations. The value is the kernel's opcode, and bit `1 << op` stands for it in mf_upcall_ops.implemented.
 * RENAME covers the kernel's RENAME2, FORGET its BATCH_FORGET, COPY_FILE_RANGE its 64-bit form.
 */
enum mf_op {
    MF_OP_LOOKUP = 1,
    MF_OP_FORGET = 2,
    MF_OP_GETATTR = 3,
    MF_OP_SETATTR = 4,
    MF_OP_READLINK = 5,
    MF_OP_SYMLINK = 6,
    MF_OP_MKNOD = 8,
    MF_OP_MKDIR = 9,
    MF_OP_UNLINK = 10,
    MF_OP_RMDIR = 11,
    MF_OP_RENAME = 12,
    MF_OP_LINK = 13,
    MF_OP_OPEN = 14,
    MF_OP_READ = 15,
    MF_OP_WRITE = 16,
    MF_OP_STATFS = 17,
    MF_OP_RELEASE = 18,
    MF_OP_FSYNC = 20,
    MF_OP_SETXATTR = 21,
    MF_OP_GETXATTR = 22,
    MF_OP_LISTXATTR = 23,
    MF_OP_REMOVEXATTR = 24,
    MF_OP_FLUSH = 25,
    MF_OP_OPENDIR = 27,
    MF_OP_READDIR = 28,
    MF_OP_RELEASEDIR = 29,
    MF_OP_FSYNCDIR = 30,
    MF_OP_GETLK = 31,
    MF_OP_SETLK = 32,
    MF_OP_SETLKW = 33,
    MF_OP_ACCESS = 34,
    MF_OP_CREATE = 35,
    MF_OP_BMAP = 37,
    MF_OP_IOCTL = 39,
    MF_OP_POLL = 40,
    MF_OP_FALLOCATE = 43,
    MF_OP_READDIRPLUS = 44,
    MF_OP_LSEEK = 46,
    MF_OP_COPY_FILE_RANGE = 47,
    MF_OP_SYNCFS = 50,
    MF_OP_TMPFILE = 51,
    MF_OP_STATX = 52
};

/** What went wrong, in words for a person. Filled by set-up calls; the caller owns it. NULL is accepted. */
struct mf_error {
    uint32_t size;  /**< sizeof(struct mf_error) */
    int32_t code;   /**< the negative errno that the call returned */
    char text[504]; /**< what is wrong and what to do about it; NUL-terminated */
};

/** Attributes of a node. The layout is the kernel's, so that a reply is one copy. */
struct mf_attr {
    uint64_t ino;    /**< st_ino; 0 = the node id */
    uint64_t size;   /**< bytes */
    uint64_t blocks; /**< units of 512 bytes */
    int64_t atime;   /**< seconds */
    int64_t mtime;   /**< seconds */
    int64_t ctime;   /**< seconds */
    uint32_t atimensec;
    uint32_t mtimensec;
    uint32_t ctimensec;
    uint32_t mode; /**< type and permission bits; the type never changes during a node's life */
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev;    /**< as Linux' new_encode_dev(): (minor & 0xff) | major << 8 | (minor & ~0xff) << 12 */
    uint32_t blksize; /**< preferred I/O size, 0 = the kernel's default */
    uint32_t flags;   /**< FUSE_ATTR_*; 0 */
};

/** The answer to lookup and to everything that makes a node. */
struct mf_entry {
    uint32_t size;             /**< sizeof(struct mf_entry) */
    uint32_t reserved;         /**< 0 */
    uint64_t node;             /**< node id; 0 in a lookup = there is no such name, and that may be cached */
    uint64_t generation;       /**< (node, generation) is never used twice */
    uint64_t entry_timeout_ns; /**< how long the kernel may keep the name */
    uint64_t attr_timeout_ns;  /**< how long the kernel may keep the attributes */
    struct mf_attr attr;
};

/** The answer to open, opendir and, beside an entry, create. */
struct mf_open {
    uint32_t size;      /**< sizeof(struct mf_open) */
    uint32_t flags;     /**< MF_OPEN_*; bits that this header does not name go to the kernel as they are */
    uint64_t fh;        /**< comes back with each request on this open file */
    int32_t backing_id; /**< with MF_OPEN_PASSTHROUGH */
    uint32_t reserved;  /**< 0 */
};

#define MF_OPEN_DIRECT_IO 0x1u               /**< no page cache */
#define MF_OPEN_KEEP_CACHE 0x2u              /**< cached data stays valid over this open */
#define MF_OPEN_NONSEEKABLE 0x4u             /**< lseek(2) fails */
#define MF_OPEN_CACHE_DIR 0x8u               /**< the kernel may cache the listing (7.28) */
#define MF_OPEN_STREAM 0x10u                 /**< no file position at all */
#define MF_OPEN_NOFLUSH 0x20u                /**< no FLUSH at close (7.35) */
#define MF_OPEN_PARALLEL_DIRECT_WRITES 0x40u /**< with DIRECT_IO: writes need no lock (7.38) */
#define MF_OPEN_PASSTHROUGH 0x80u            /**< data goes to backing_id in the kernel (7.40) */

/** The answer to statfs. */
struct mf_statfs {
    uint32_t size;     /**< sizeof(struct mf_statfs) */
    uint32_t reserved; /**< 0 */
    uint64_t blocks;   /**< in units of frsize */
    uint64_t bfree;
    uint64_t bavail;
    uint64_t files; /**< inodes */
    uint64_t ffree;
    uint32_t bsize;
    uint32_t namelen;
    uint32_t frsize;
    uint32_t reserved2; /**< 0 */
};

/** A POSIX or flock lock. */
struct mf_lock {
    uint64_t start; /**< first byte */
    uint64_t end;   /**< last byte; 2^63 - 1 = to the end of the file */
    uint32_t type;  /**< F_RDLCK, F_WRLCK, F_UNLCK */
    uint32_t pid;   /**< process that holds it */
};

/** One element of a forget: the kernel drops `nlookup` of the references that lookups gave it. */
struct mf_forget {
    uint64_t node;
    uint64_t nlookup;
};

/** Values of mf_call.valid in setattr. */
#define MF_SET_MODE 0x1u
#define MF_SET_UID 0x2u
#define MF_SET_GID 0x4u
#define MF_SET_SIZE 0x8u
#define MF_SET_ATIME 0x10u
#define MF_SET_MTIME 0x20u
#define MF_SET_FH 0x40u
#define MF_SET_ATIME_NOW 0x80u
#define MF_SET_MTIME_NOW 0x100u
#define MF_SET_LOCKOWNER 0x200u
#define MF_SET_CTIME 0x400u
#define MF_SET_KILL_SUIDGID 0x800u

/**
 * What an upcall answers. The engine clears it before each call, so that only what matters need be set;
 * which fields matter depends on the operation and is said at mf_call.
 */
struct mf_answer {
    uint64_t node;             /**< entry */
    uint64_t generation;       /**< entry */
    uint64_t entry_timeout_ns; /**< entry */
    uint64_t attr_timeout_ns;  /**< entry, attr */
    struct mf_attr attr;       /**< entry, attr */
    uint64_t fh;               /**< open */
    uint32_t open_flags;       /**< open: MF_OPEN_* */
    int32_t backing_id;        /**< open */
    const void *data;          /**< data: bytes to send; NULL = they are already in mf_call.buf */
    uint64_t data_len;         /**< data: number of bytes; with a descriptor the most to read from it */
    uint64_t data_offset;      /**< data: offset in data_fd */
    int32_t data_fd;           /**< data: with MF_ANSWER_FD, read the bytes from this descriptor */
    uint32_t flags;            /**< MF_ANSWER_* */
    uint64_t value;            /**< write: bytes written; xattrs with length 0: bytes needed; lseek: offset */
};

#define MF_ANSWER_FD 0x1u /**< the data are in data_fd at data_offset; the engine reads them */

/**
 * One request, decoded: the flat record that every upcall gets. Fields that an operation does not use are 0
 * (fh: MF_NO_FH). `answer` column: what mf_answer must hold when the upcall returns 0.
 *
 * | op                  | fields                                                         | answer       |
 * |---------------------|----------------------------------------------------------------|--------------|
 * | lookup              | node (parent) name                                             | entry        |
 * | forget              | data: struct mf_forget[length]                                 | none, ever   |
 * | getattr             | node fh                                                        | attr         |
 * | setattr             | node fh valid attr lock_owner                                  | attr         |
 * | readlink            | node                                                           | data         |
 * | symlink             | node (parent) name name2 (target)                              | entry        |
 * | mknod               | node (parent) name mode rdev umask                             | entry        |
 * | mkdir               | node (parent) name mode umask                                  | entry        |
 * | unlink, rmdir       | node (parent) name                                             | -            |
 * | rename              | node (parent) name node2 (new parent) name2 flags              | -            |
 * | link                | node (existing) node2 (new parent) name2 (new name)            | entry        |
 * | open, opendir       | node flags op_flags                                            | open         |
 * | create, tmpfile     | node (parent) name mode flags umask op_flags                   | entry, open  |
 * | read                | node fh offset length flags op_flags lock_owner buf            | data         |
 * | write               | node fh offset data length flags op_flags lock_owner           | value        |
 * | flush               | node fh lock_owner                                             | -            |
 * | release(dir)        | node fh flags op_flags lock_owner                              | -            |
 * | fsync(dir)          | node fh flags (1 = data only)                                  | -            |
 * | readdir(plus)       | node fh offset length buf; see mf_dirent_add                   | data         |
 * | statfs              | node                                                           | mf_reply_statfs's structure in data |
 * | access              | node flags (R_OK, W_OK, X_OK)                                  | -            |
 * | setxattr            | node name data length flags op_flags                           | -            |
 * | getxattr            | node name length (0 = only the size is asked)                  | data / value |
 * | listxattr           | node length (0 = only the size is asked)                       | data / value |
 * | removexattr         | node name                                                      | -            |
 * | lseek               | node fh offset flags (whence)                                  | value        |
 * | fallocate           | node fh offset length mode                                     | -            |
 * | copy_file_range     | node fh offset node2 fh2 offset2 length flags                  | value        |
 *
 * Ownership: the engine's; everything it points to dies when the request is answered.
 */
struct mf_call {
    uint32_t size; /**< sizeof(struct mf_call) */
    uint32_t op;   /**< MF_OP_* */
    uint64_t unique;
    uint64_t node;
    uint64_t fh;
    uint64_t offset;
    uint64_t length;
    uint64_t node2;
    uint64_t fh2;
    uint64_t offset2;
    uint64_t lock_owner;
    const char *name;  /**< NUL-terminated; no slash in it, but in the names of xattrs */
    const char *name2; /**< likewise */
    const void *data;
    uint32_t name_len;  /**< without the NUL */
    uint32_t name2_len; /**< without the NUL */
    uint32_t flags;
    uint32_t op_flags;
    uint32_t mode;
    uint32_t rdev;
    uint32_t umask;
    uint32_t valid; /**< MF_SET_* */
    uint32_t uid;   /**< the caller's; 0 where the kernel itself asks */
    uint32_t gid;
    uint32_t pid;        /**< thread id of the caller in the mounter's pid namespace; 0 = the kernel, or unknown */
    uint32_t again;      /**< nonzero: this request may have been executed before */
    struct mf_attr attr; /**< setattr: the wanted values */
    void *buf;           /**< where the bytes of a data answer may be built; sent without a further copy */
    uint64_t buf_size;   /**< bytes at buf: at least `length` of a read or readdir */
    struct mf_req *req;
    struct mf_session *session;
    uint32_t reader;   /**< index of the reader that runs this call */
    uint32_t reserved; /**< 0 */
    struct mf_answer answer;
};

/** Return values of an upcall beside 0 (mf_call.answer is the answer) and -errno (an error answer). */
#define MF_ANSWER_LATER 1 /**< the request was kept; mf_reply_* answers it, from any thread */
#define MF_ANSWERED 2     /**< mf_reply_* has answered it already */

/**
 * Upcalls exclude each other while they compute (a global interpreter lock): the engine then lets one reader
 * serve as long as upcalls return at once, and more where they wait.
 */
#define MF_UPCALL_EXCLUSIVE 0x1u

/** What a binding gives: one function for all operations. */
struct mf_upcall_ops {
    uint32_t size;        /**< sizeof(struct mf_upcall_ops) */
    uint32_t flags;       /**< MF_UPCALL_* */
    uint64_t implemented; /**< bit 1 << MF_OP_*; the others are answered in C with ENOSYS */
    /** Threads: any reader, several at once. Returns 0, -errno, MF_ANSWER_LATER or MF_ANSWERED. */
    int32_t (*upcall)(struct mf_call *call, void *user);
    /** On the reader's own thread before its first request and after its last. NULL is accepted. */
    void (*reader_start)(struct mf_session *session, uint32_t reader, void *user);
    void (*reader_end)(struct mf_session *session, uint32_t reader, void *user);
    /** Once, on the thread that ran the session, when no handler runs any more. NULL is accepted. */
    void (*destroy)(void *user);
    /** The caller of a request that is being handled, or was kept, gave up. Called on any reader thread. */
    void (*interrupted)(struct mf_session *session, uint64_t unique, void *user);
    /**
     * What upcall() entered, such as a lock of the language, it may keep when it returns, for the next upcall on the same
     * thread: this is called there before the thread waits, lets others run or ends, unless a request is there already.
     * NULL: upcall() leaves everything as it was.
     */
    void (*leave)(void *user);
};

/** Handler arguments that would be too many to pass one by one. */
struct mf_read_in {
    uint64_t fh;
    uint64_t offset;
    uint64_t length; /**< bytes wanted */
    uint64_t lock_owner;
    uint32_t flags;      /**< the file's open(2) flags now */
    uint32_t read_flags; /**< FUSE_READ_* */
};
struct mf_write_in {
    uint64_t fh;
    uint64_t offset;
    uint64_t length; /**< bytes at data */
    uint64_t lock_owner;
    const void *data;     /**< page-aligned; dies with the answer */
    uint32_t flags;       /**< the file's open(2) flags now */
    uint32_t write_flags; /**< FUSE_WRITE_* */
};
struct mf_setattr_in {
    uint64_t fh; /**< MF_NO_FH where none */
    uint64_t lock_owner;
    uint32_t valid; /**< MF_SET_*: which of attr count */
    uint32_t reserved;
    struct mf_attr attr;
};
struct mf_release_in {
    uint64_t fh;
    uint64_t lock_owner;
    uint32_t flags;         /**< open(2) flags */
    uint32_t release_flags; /**< FUSE_RELEASE_* */
};

/**
 * The typed operations of a C filesystem. An operation that is NULL is answered with ENOSYS in C, which
 * for many of them the kernel remembers. Each handler answers with one mf_reply_* before it returns, or
 * calls mf_req_defer() and answers later from any thread; one that does neither is answered with EIO.
 *
 * Threads: handlers run on reader threads, several at once unless the session has one reader.
 * Ownership: all pointers die when the request is answered.
 */
struct mf_ops {
    uint32_t size;               /**< sizeof(struct mf_ops) */
    uint32_t flags;              /**< 0 */
    void (*destroy)(void *user); /**< once, on the thread of mf_session_run(), after the last handler */
    void (*reader_start)(struct mf_session *session, uint32_t reader, void *user);
    void (*reader_end)(struct mf_session *session, uint32_t reader, void *user);
    void (*interrupted)(struct mf_session *session, uint64_t unique, void *user);
    void (*lookup)(struct mf_req *req, uint64_t parent, const char *name, void *user);
    void (*forget)(struct mf_req *req, const struct mf_forget *items, uint64_t count, void *user); /**< no answer */
    void (*getattr)(struct mf_req *req, uint64_t node, uint64_t fh, void *user);
    void (*setattr)(struct mf_req *req, uint64_t node, const struct mf_setattr_in *in, void *user);
    void (*readlink)(struct mf_req *req, uint64_t node, void *user);
    void (*symlink)(struct mf_req *req, uint64_t parent, const char *name, const char *target, void *user);
    void (*mknod)(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev, void *user);
    void (*mkdir)(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, void *user);
    void (*unlink)(struct mf_req *req, uint64_t parent, const char *name, void *user);
    void (*rmdir)(struct mf_req *req, uint64_t parent, const char *name, void *user);
    void (*rename)(struct mf_req *req, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
                   uint32_t flags, void *user);
    void (*link)(struct mf_req *req, uint64_t node, uint64_t newparent, const char *newname, void *user);
    void (*open)(struct mf_req *req, uint64_t node, uint32_t flags, void *user);
    void (*create)(struct mf_req *req, uint64_t parent, const char *name, uint32_t mode, uint32_t flags, void *user);
    void (*read)(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user);
    void (*write)(struct mf_req *req, uint64_t node, const struct mf_write_in *in, void *user);
    void (*flush)(struct mf_req *req, uint64_t node, uint64_t fh, uint64_t lock_owner, void *user);
    void (*release)(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user);
    void (*fsync)(struct mf_req *req, uint64_t node, uint64_t fh, uint32_t datasync, void *user);
    void (*opendir)(struct mf_req *req, uint64_t node, uint32_t flags, void *user);
    void (*readdir)(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user);
    void (*releasedir)(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user);
    void (*fsyncdir)(struct mf_req *req, uint64_t node, uint64_t fh, uint32_t datasync, void *user);
    void (*statfs)(struct mf_req *req, uint64_t node, void *user);
    void (*access)(struct mf_req *req, uint64_t node, uint32_t mask, void *user);
    void (*setxattr)(struct mf_req *req, uint64_t node, const char *name, const void *value, uint64_t length,
                     uint32_t flags, void *user);
    void (*getxattr)(struct mf_req *req, uint64_t node, const char *name, uint64_t length, void *user);
    void (*listxattr)(struct mf_req *req, uint64_t node, uint64_t length, void *user);
    void (*removexattr)(struct mf_req *req, uint64_t node, const char *name, void *user);
};

/** How a clone of the device is obtained for each reader after the first. */
enum mf_clone_mode {
    MF_CLONE_AUTO = 0,   /**< clone; where that fails, share the descriptor and say so in mf_session_info */
    MF_CLONE_OFF = 1,    /**< all readers share one descriptor */
    MF_CLONE_REQUIRE = 2 /**< a clone that fails is an error of the mount */
};

/** Whom the session answers; everybody else gets EACCES from C. */
enum mf_acl {
    MF_ACL_OWNER = 0,          /**< the user who mounted (the kernel's own default) */
    MF_ACL_ROOT_AND_OWNER = 1, /**< and root; asks for allow_other */
    MF_ACL_ALL = 2             /**< everybody; asks for allow_other */
};

/** Whether requests may travel over io_uring instead of the device. */
enum mf_uring_mode { MF_URING_AUTO = 0, MF_URING_OFF = 1, MF_URING_REQUIRE = 2 };

/** Where reader threads run, and how they stand to their clients in the scheduler's eyes. */
enum mf_placement {
    MF_PLACEMENT_AUTO = 0,   /**< bound to a CPU each, and yielding to clients, while the machine is quiet */
    MF_PLACEMENT_PINNED = 1, /**< each reader bound to a CPU, also on the device; scheduled as any thread */
    MF_PLACEMENT_FREE = 2    /**< wherever the scheduler likes */
};

enum mf_log_level { MF_LOG_ERROR = 0, MF_LOG_WARNING = 1, MF_LOG_INFO = 2, MF_LOG_DEBUG = 3 };

#define MF_OPT_SIGNALS 0x1u     /**< SIGINT, SIGTERM and SIGHUP end mf_session_run() cleanly */
#define MF_OPT_INLINE 0x2u      /**< readers = 1: the thread in mf_session_run() is the reader */
#define MF_OPT_NO_LATENCY 0x4u  /**< keep no latency histograms */
#define MF_OPT_DEBUG 0x8u       /**< log each request at MF_LOG_DEBUG */
#define MF_OPT_WRITEBACK 0x10u  /**< ask for the kernel's write-back cache */
#define MF_OPT_NO_UNMOUNT 0x20u /**< the mount outlives mf_session_run(); for readers beside a main session */

/** Options of a session; zero is the default of every field. */
struct mf_session_opts {
    uint32_t size;             /**< sizeof(struct mf_session_opts) */
    uint32_t flags;            /**< MF_OPT_* */
    uint32_t readers;          /**< reader threads, and over io_uring so many for each ring; 0 = automatic. Of more than
                                    there are CPUs the rest are parked until handlers wait */
    uint32_t clone_fd;         /**< enum mf_clone_mode */
    uint32_t uring;            /**< enum mf_uring_mode */
    uint32_t acl;              /**< enum mf_acl */
    uint32_t max_write;        /**< bytes, 4096 to 1 MiB in whole pages; 0 = 1 MiB */
    uint32_t max_readahead;    /**< bytes; 0 = the kernel's offer */
    uint32_t max_background;   /**< 0 = the kernel's default */
    uint32_t time_gran;        /**< nanoseconds; 0 = 1 */
    uint32_t max_outstanding;  /**< requests that may be kept unanswered per reader; 0 = 256 */
    uint32_t stop_timeout_ms;  /**< how long mf_session_stop() waits for handlers before it aborts; 0 = 10,000 */
    uint64_t want;             /**< further INIT flags to ask for (protocol bits) */
    uint64_t unwant;           /**< INIT flags not to ask for */
    const char *mount_options; /**< as after -o: "ro,allow_other,fsname=x"; NULL = none. Copied. */
    const char *fsname;        /**< source shown in /proc/mounts; NULL = "manifuse". Copied. */
    const char *subtype;       /**< type shown as fuse.SUBTYPE; NULL = none. Copied. */
    /** Log sink; NULL = standard error, warnings and errors only. Threads: any, several at once. */
    void (*log)(uint32_t level, const char *text, void *log_user);
    void *log_user;
    uint32_t placement; /**< enum mf_placement */
    uint32_t reserved;  /**< 0 */
};

/** Format of struct mf_negotiated. */
#define MF_NEGOTIATED_VERSION 1u

/** What INIT agreed upon: plain bytes in host order that may cross a process boundary. */
struct mf_negotiated {
    uint32_t size;    /**< sizeof(struct mf_negotiated) */
    uint32_t version; /**< MF_NEGOTIATED_VERSION */
    uint32_t major;   /**< 7 */
    uint32_t minor;   /**< the smaller of the kernel's and the library's */
    uint32_t kernel_minor;
    uint32_t max_write;
    uint32_t max_pages;
    uint32_t max_readahead;
    uint32_t max_background;
    uint32_t time_gran;
    uint64_t flags;       /**< INIT flags in force */
    uint64_t offered;     /**< INIT flags that the kernel offered */
    uint64_t implemented; /**< operations that were answered when ENOSYS was latched; bit 1 << MF_OP_* */
    uint32_t acl;         /**< enum mf_acl */
    uint32_t owner_uid;
    uint32_t owner_gid;
    uint32_t transport;  /**< enum mf_transport_kind */
    uint64_t connection; /**< the kernel's number of the connection; 0 = unknown */
};

enum mf_transport_kind { MF_TRANSPORT_DEVICE = 1, MF_TRANSPORT_URING = 2, MF_TRANSPORT_MEMORY = 3 };

/** What a session became. */
struct mf_info {
    uint32_t size;              /**< sizeof(struct mf_info) */
    uint32_t readers;           /**< readers that serve, or will */
    uint32_t channels;          /**< distinct descriptors among them */
    uint32_t transport;         /**< enum mf_transport_kind */
    uint32_t clone_error;       /**< errno of the first clone that failed; 0 = none did */
    uint32_t failed_readers;    /**< readers that died, each replaced or the session ended */
    uint64_t connection;        /**< N of /sys/fs/fuse/connections/N; 0 = unknown */
    char clone_reason[128];     /**< why readers share a descriptor; "" where none do */
    char transport_reason[128]; /**< why this transport is in use */
    uint64_t growths;           /**< readers that joined because handlers waited */
    uint64_t shrinks;           /**< readers that left again */
    char placement[128];        /**< where readers run and how they are scheduled now, and why */
};

#define MF_STATS_OPS 64     /**< one row per opcode */
#define MF_STATS_BUCKETS 32 /**< bucket i counts latencies of at most 2^i ns that exceed 2^(i-1) */

/** Counters of one operation. */
struct mf_op_stats {
    uint64_t requests;
    uint64_t errors;   /**< answered with an error */
    uint64_t bytes_in; /**< request bytes */
    uint64_t bytes_out;
};

/** Counters of one reader. */
struct mf_reader_stats {
    uint32_t size; /**< sizeof(struct mf_reader_stats) */
    uint32_t reader;
    int32_t fd;   /**< descriptor that it reads; -1 = it has none */
    uint32_t tid; /**< thread id; 0 = not running */
    uint64_t requests;
    uint64_t replies;
    uint64_t errors;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t in_flight;  /**< requests not answered yet */
    uint64_t wakeups;    /**< returns from waiting for a request */
    uint64_t malformed;  /**< messages that did not decode */
    uint64_t forgotten;  /**< handlers that returned without an answer */
    uint64_t interrupts; /**< INTERRUPT messages */
    struct mf_op_stats ops[MF_STATS_OPS];
    uint64_t latency[MF_STATS_BUCKETS]; /**< time from receipt to answer; every seventeenth request is timed */
};

#ifdef __cplusplus
}
#endif
#endif
/* abi/include/manifuse/version.h */
/* SPDX-License-Identifier: MIT */
/** @file version.h  Version of the library and of its binary interface. */
#ifndef MANIFUSE_VERSION_H
#define MANIFUSE_VERSION_H

#define MF_VERSION_MAJOR 0
#define MF_VERSION_MINOR 1
#define MF_VERSION_PATCH 0
#define MF_VERSION_STRING "0.1.0"

/** Number in the shared library's soname; grows when a symbol goes away. */
#define MF_ABI_VERSION 0

#if defined(__GNUC__) && !defined(SWIG)
#define MF_API __attribute__((visibility("default")))
#else
#define MF_API
#endif

#endif

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

/* core/base/base.h */
/* SPDX-License-Identifier: MIT */
/* base.h - what every part of the core uses: memory that the kernel writes to, logging, error texts. */
#ifndef MF_BASE_H
#define MF_BASE_H

#include <errno.h>
#include <stdarg.h>


#define MF__CACHE_LINE 64u
#define MF__PAGE 4096u /* the protocol's unit, whatever the machine's page size is */
#define MF__ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MF__CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Between two looks at what another thread is about to change. */
#if defined(__x86_64__) || defined(__i386__)
#define MF__RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define MF__RELAX() __asm__ volatile("yield")
#else
#define MF__RELAX() atomic_signal_fence(memory_order_seq_cst)
#endif

/* Seldom called: kept out of the way of what runs for each request, as are the branches that lead there. */
#define MF__COLD __attribute__((cold, noinline))
/* What leads to a system call: while another task runs the processor forgets where functions return to. */
#define MF__FLAT inline __attribute__((always_inline))

static inline uint64_t mf__round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Where one thread at a time counts, and any may read: plain arithmetic. */
static inline void mf__count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* In pieces, since of a longer memset() compilers make one microcoded instruction: slow for less than some hundred bytes. */
static inline void mf__zero(void *dst, size_t n)
{
    uint8_t *p = dst;

    for (; n >= 64; n -= 64, p += 64)
        memset(p, 0, 64);
    memset(p, 0, n);
}

/*
 * Memory that the kernel writes requests to and reads answers from. One allocator for all of it, so that it
 * can become a shared object that outlives the process. Untouched pages cost nothing.
 */
struct mf__region {
    uint8_t *base;
    size_t size;
};
int mf__region_new(struct mf__region *out, size_t size);
void mf__region_free(struct mf__region *region);

/* A condition whose limits follow the monotonic clock. */
void mf__cond_init(pthread_cond_t *cond);
/* At most `ns`. false: nobody signalled. */
bool mf__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns);

struct mf__log {
    void (*sink)(uint32_t level, const char *text, void *user); /* NULL = standard error */
    void *user;
    uint32_t max_level;
};

/* Formats one line, truncated to 1 KiB, without a newline at its end. */
__attribute__((format(printf, 3, 4))) void mf__logf(const struct mf__log *log, uint32_t level, const char *fmt, ...);

/* Fill `err` (NULL is accepted) and return `code`, a negative errno. The text is cut where it is too long. */
__attribute__((format(printf, 3, 4))) int mf__errorf(struct mf_error *err, int code, const char *fmt, ...);

/*
 * Copy a structure whose first field is its size from a caller that may be older or newer than the library:
 * what it lacks becomes 0, what we lack must be 0. -EINVAL: size below `least`; -E2BIG: a tail that is not 0.
 */
int mf__copy_sized(void *dst, size_t dst_size, const void *src, size_t least);

/* strerror() that is safe in threads and needs no buffer of the caller's. */
const char *mf__strerror(int error);

#endif
/* core/mount/mount.h */
/* SPDX-License-Identifier: MIT */
/* mount.h - options, making a mount, undoing it. Knows nothing of the protocol but the descriptor. */
#ifndef MF_MOUNT_H
#define MF_MOUNT_H


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
/* core/session/crew.h */
/* SPDX-License-Identifier: MIT */
/*
 * crew.h - readers that serve one source together: a ring, or the device.
 *
 * The members of a crew receive and handle, on the device as many at once as have seats (door.h); the other readers
 * are parked. A crew is no larger than it need be: readers that only wait for a lock of the language (a GIL), or for
 * a CPU, take time from each other. A monitor looks each millisecond whether all members of a crew are in handlers
 * that do not return, and gives it one more; a crew that has had idle members for long loses one. The monitor sleeps
 * while nothing happens.
 */
#ifndef MF_CREW_H
#define MF_CREW_H


/* core/transport/ring.h */
/* SPDX-License-Identifier: MIT */
/* ring.h - channels whose requests come over io_uring. */
#ifndef MF_RING_H
#define MF_RING_H

/* core/transport/transport.h */
/* SPDX-License-Identifier: MIT */
/*
 * transport.h - how messages come and go. A transport knows the framing (the request header's len, the reply
 * header) and nothing of opcodes.
 *
 * A channel is one endpoint: what was received on it is answered on it. A request and its answer live in a
 * struct mf__io, which the reader's slot embeds. The device reads into the io that the reader offers; a ring
 * returns the io that belongs to the completed entry, with header and payload in the entry's own buffers.
 * Nothing above the transport may assume that args follow the header or that body follows args.
 */
#ifndef MF_TRANSPORT_H
#define MF_TRANSPORT_H

#include <sys/uio.h>

/* core/wire/wire.h */
/* SPDX-License-Identifier: MIT */
/* wire.h - bytes to structures and back. No I/O, no allocation, nothing trusted for a length. */
#ifndef MF_WIRE_H
#define MF_WIRE_H

/* core/wire/kernel.h */
/* SPDX-License-Identifier: MIT */
/*
 * kernel.h - the FUSE kernel protocol 7.45, as it crosses /dev/fuse and fuse-over-io_uring.
 *
 * Names are the kernel's, since they are what the field calls these things. Numbers are in host order, every
 * structure is naturally aligned and the same for 32- and 64-bit servers. A number in parentheses is the
 * protocol minor that brought a field or flag. Names and data follow a structure without alignment: load by
 * memcpy. Do not include <linux/fuse.h> in the same translation unit.
 */
#ifndef MF_WIRE_KERNEL_H
#define MF_WIRE_KERNEL_H

#include <sys/ioctl.h>

#define FUSE_KERNEL_VERSION 7
#define FUSE_KERNEL_MINOR_VERSION 45

#define FUSE_ROOT_ID 1
#define FUSE_INVALID_UIDGID 0xffffffffu /* uid, gid in a header of an idmapped mount: no such user here */

/* Bits of fuse_in_header.unique beside the number. */
#define FUSE_INT_REQ_BIT 1ull           /* an INTERRUPT: the rest is the number of its target */
#define FUSE_UNIQUE_RESEND (1ull << 63) /* sent again after FUSE_NOTIFY_RESEND */
#define FUSE_REQ_ID_STEP 2ull

#define FUSE_MIN_READ_BUFFER 8192 /* a read with less room fails */
#define FUSE_NAME_MAX 4095        /* 1024 where max_pages is 1, and before 6.18 */

/* ---- framing ---------------------------------------------------------------------------------------- */

enum fuse_opcode {
    FUSE_LOOKUP = 1,
    FUSE_FORGET = 2, /* never answered */
    FUSE_GETATTR = 3,
    FUSE_SETATTR = 4,
    FUSE_READLINK = 5,
    FUSE_SYMLINK = 6,
    FUSE_MKNOD = 8,
    FUSE_MKDIR = 9,
    FUSE_UNLINK = 10,
    FUSE_RMDIR = 11,
    FUSE_RENAME = 12,
    FUSE_LINK = 13,
    FUSE_OPEN = 14,
    FUSE_READ = 15,
    FUSE_WRITE = 16,
    FUSE_STATFS = 17,
    FUSE_RELEASE = 18,
    FUSE_FSYNC = 20,
    FUSE_SETXATTR = 21,
    FUSE_GETXATTR = 22,
    FUSE_LISTXATTR = 23,
    FUSE_REMOVEXATTR = 24,
    FUSE_FLUSH = 25,
    FUSE_INIT = 26,
    FUSE_OPENDIR = 27,
    FUSE_READDIR = 28,
    FUSE_RELEASEDIR = 29,
    FUSE_FSYNCDIR = 30,
    FUSE_GETLK = 31,
    FUSE_SETLK = 32,
    FUSE_SETLKW = 33,
    FUSE_ACCESS = 34,
    FUSE_CREATE = 35,
    FUSE_INTERRUPT = 36,
    FUSE_BMAP = 37,
    FUSE_DESTROY = 38,
    FUSE_IOCTL = 39,
    FUSE_POLL = 40,
    FUSE_NOTIFY_REPLY = 41, /* never answered */
    FUSE_BATCH_FORGET = 42, /* never answered */
    FUSE_FALLOCATE = 43,
    FUSE_READDIRPLUS = 44,
    FUSE_RENAME2 = 45,
    FUSE_LSEEK = 46,
    FUSE_COPY_FILE_RANGE = 47,
    FUSE_SETUPMAPPING = 48,
    FUSE_REMOVEMAPPING = 49,
    FUSE_SYNCFS = 50,
    FUSE_TMPFILE = 51,
    FUSE_STATX = 52,
    FUSE_COPY_FILE_RANGE_64 = 53,

    CUSE_INIT = 4096,

    /* What CUSE_INIT and INIT look like where the peer has the other byte order. */
    CUSE_INIT_BSWAP_RESERVED = 1048576,
    FUSE_INIT_BSWAP_RESERVED = 436207616
};

struct fuse_in_header {
    uint32_t len;          /* of the whole message, this header and extensions included */
    uint32_t opcode;       /* enum fuse_opcode */
    uint64_t unique;       /* even; bit 0 = INTERRUPT, bit 63 = sent again; the reply repeats it as it is */
    uint64_t nodeid;       /* the node asked about, a directory for names; 0 where there is none */
    uint32_t uid;          /* caller's, in the mount's user namespace; 0 where the kernel itself asks */
    uint32_t gid;          /* likewise */
    uint32_t pid;          /* thread id in the pid namespace of the mounter; 0 = none */
    uint16_t total_extlen; /* extension area at the end, in units of 8 bytes (7.38) */
    uint16_t padding;
};
_Static_assert(sizeof(struct fuse_in_header) == 40, "fuse_in_header");

struct fuse_out_header {
    uint32_t len;    /* must equal the byte count of the write/splice */
    int32_t error;   /* reply: 0 or -errno; notification: its code */
    uint64_t unique; /* reply: as in the request; notification: 0 */
};
_Static_assert(sizeof(struct fuse_out_header) == 16, "fuse_out_header");

/* ---- INIT ------------------------------------------------------------------------------------------- */

/*
 * INIT flags: the kernel offers, the server answers with the subset that it wants. "told": a capability of the
 * kernel that needs no echo. Bits from 32 on travel in flags2, which counts only together with FUSE_INIT_EXT.
 */
#define FUSE_ASYNC_READ (1ull << 0)            /* read-ahead sends several READs at once */
#define FUSE_POSIX_LOCKS (1ull << 1)           /* fcntl locks come to the server (7.7) */
#define FUSE_FILE_OPS (1ull << 2)              /* never offered */
#define FUSE_ATOMIC_O_TRUNC (1ull << 3)        /* O_TRUNC comes with OPEN instead of as a SETATTR */
#define FUSE_EXPORT_SUPPORT (1ull << 4)        /* LOOKUP of "." and ".." is answered */
#define FUSE_BIG_WRITES (1ull << 5)            /* WRITEs of more than a page */
#define FUSE_DONT_MASK (1ull << 6)             /* the umask is the server's business (7.12) */
#define FUSE_SPLICE_WRITE (1ull << 7)          /* told (7.14) */
#define FUSE_SPLICE_MOVE (1ull << 8)           /* told (7.14) */
#define FUSE_SPLICE_READ (1ull << 9)           /* told (7.14) */
#define FUSE_FLOCK_LOCKS (1ull << 10)          /* flock(2) comes to the server (7.17) */
#define FUSE_HAS_IOCTL_DIR (1ull << 11)        /* told (7.18) */
#define FUSE_AUTO_INVAL_DATA (1ull << 12)      /* cached data go when mtime or size changed (7.20) */
#define FUSE_DO_READDIRPLUS (1ull << 13)       /* READDIRPLUS in place of READDIR (7.21) */
#define FUSE_READDIRPLUS_AUTO (1ull << 14)     /* with the former: only where it seems to pay (7.21) */
#define FUSE_ASYNC_DIO (1ull << 15)            /* direct I/O in parallel pieces (7.22) */
#define FUSE_WRITEBACK_CACHE (1ull << 16)      /* the kernel delays writes; excludes FUSE_PASSTHROUGH (7.23) */
#define FUSE_NO_OPEN_SUPPORT (1ull << 17)      /* told: ENOSYS to OPEN ends OPEN and RELEASE (7.23) */
#define FUSE_PARALLEL_DIROPS (1ull << 18)      /* several LOOKUP, READDIR in one directory (7.25) */
#define FUSE_HANDLE_KILLPRIV (1ull << 19)      /* the server drops suid, sgid and capabilities (7.26) */
#define FUSE_POSIX_ACL (1ull << 20)            /* ACLs are the kernel's; forces default_permissions (7.26) */
#define FUSE_ABORT_ERROR (1ull << 21)          /* a read after an abort gives ECONNABORTED (7.27) */
#define FUSE_MAX_PAGES (1ull << 22)            /* fuse_init_out.max_pages counts (7.28) */
#define FUSE_CACHE_SYMLINKS (1ull << 23)       /* targets of links are cached (7.28) */
#define FUSE_NO_OPENDIR_SUPPORT (1ull << 24)   /* told: likewise for OPENDIR (7.29) */
#define FUSE_EXPLICIT_INVAL_DATA (1ull << 25)  /* cached data go only when told to (7.30) */
#define FUSE_MAP_ALIGNMENT (1ull << 26)        /* virtiofs (7.31) */
#define FUSE_SUBMOUNTS (1ull << 27)            /* virtiofs (7.32) */
#define FUSE_HANDLE_KILLPRIV_V2 (1ull << 28)   /* the kernel says when: *_KILL_SUIDGID (7.33) */
#define FUSE_SETXATTR_EXT (1ull << 29)         /* the long fuse_setxattr_in (7.33) */
#define FUSE_INIT_EXT (1ull << 30)             /* flags2 counts (7.36) */
#define FUSE_INIT_RESERVED (1ull << 31)        /* never to be used */
#define FUSE_SECURITY_CTX (1ull << 32)         /* new nodes come with security contexts (7.36) */
#define FUSE_HAS_INODE_DAX (1ull << 33)        /* virtiofs (7.36) */
#define FUSE_CREATE_SUPP_GROUP (1ull << 34)    /* new nodes come with the directory's group (7.38) */
#define FUSE_HAS_EXPIRE_ONLY (1ull << 35)      /* told (7.38) */
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ull << 36) /* shared maps of direct I/O files (7.39) */
#define FUSE_PASSTHROUGH (1ull << 37)          /* data of a file go to another file in the kernel (7.40) */
#define FUSE_NO_EXPORT_SUPPORT (1ull << 38)    /* no file handles for NFS (7.40) */
#define FUSE_HAS_RESEND (1ull << 39)           /* told (7.40) */
#define FUSE_ALLOW_IDMAP (1ull << 40)          /* idmapped mounts; needs default_permissions (7.41) */
#define FUSE_OVER_IO_URING (1ull << 41)        /* requests over io_uring (7.42) */
#define FUSE_REQUEST_TIMEOUT (1ull << 42)      /* fuse_init_out.request_timeout counts (7.43) */

#define FUSE_DIRECT_IO_RELAX FUSE_DIRECT_IO_ALLOW_MMAP /* the name it had first */

/* 16 bytes before 7.36, 8 before 7.6. */
struct fuse_init_in {
    uint32_t major;         /* 7 */
    uint32_t minor;         /* the kernel's */
    uint32_t max_readahead; /* bytes offered (7.6) */
    uint32_t flags;         /* low word of the offer (7.6) */
    uint32_t flags2;        /* high word, with FUSE_INIT_EXT (7.36) */
    uint32_t unused[11];
};
_Static_assert(sizeof(struct fuse_init_in) == 64, "fuse_init_in");

/* 24 bytes for minors 5 to 22, 8 before 5; any shorter form is taken, a longer one is not. */
struct fuse_init_out {
    uint32_t major;                /* 7 */
    uint32_t minor;                /* what the server speaks */
    uint32_t max_readahead;        /* bytes; the smaller one counts */
    uint32_t flags;                /* low word of the choice */
    uint16_t max_background;       /* 0 = the kernel's default (7.13) */
    uint16_t congestion_threshold; /* likewise */
    uint32_t max_write;            /* bytes, 4096 at least (7.5) */
    uint32_t time_gran;            /* ns, up to 10^9; 0 = 1 (7.23) */
    uint16_t max_pages;            /* pages of one request, with FUSE_MAX_PAGES (7.28) */
    uint16_t map_alignment;        /* log2, with FUSE_MAP_ALIGNMENT (7.31) */
    uint32_t flags2;               /* high word, with FUSE_INIT_EXT in flags (7.36) */
    uint32_t max_stack_depth;      /* 1 or 2 with FUSE_PASSTHROUGH (7.40) */
    uint16_t request_timeout;      /* seconds, with FUSE_REQUEST_TIMEOUT (7.43) */
    uint16_t unused[11];
};
_Static_assert(sizeof(struct fuse_init_out) == 64, "fuse_init_out");

#define FUSE_COMPAT_INIT_OUT_SIZE 8
#define FUSE_COMPAT_22_INIT_OUT_SIZE 24

struct fuse_interrupt_in {
    uint64_t unique; /* of the request whose caller gave up */
};
_Static_assert(sizeof(struct fuse_interrupt_in) == 8, "fuse_interrupt_in");

/* ---- attributes ------------------------------------------------------------------------------------- */

#define FUSE_ATTR_SUBMOUNT (1u << 0)
#define FUSE_ATTR_DAX (1u << 1)

/* 80 bytes before 7.9. */
struct fuse_attr {
    uint64_t ino;    /* st_ino shown to users (nodeid is separate) */
    uint64_t size;   /* at most 2^63 - 1 */
    uint64_t blocks; /* 512-byte units */
    uint64_t atime;
    uint64_t mtime;
    uint64_t ctime;
    uint32_t atimensec; /* below 10^9, like the next two */
    uint32_t mtimensec;
    uint32_t ctimensec;
    uint32_t mode; /* type and permissions; the type of a live node never changes */
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev;    /* (minor & 0xff) | major << 8 | (minor & ~0xff) << 12 */
    uint32_t blksize; /* 0 = that of the mount (7.9) */
    uint32_t flags;   /* FUSE_ATTR_* (7.32) */
};
_Static_assert(sizeof(struct fuse_attr) == 88, "fuse_attr");

/* Answers LOOKUP and what makes nodes; 120 bytes before 7.9. */
struct fuse_entry_out {
    uint64_t nodeid;      /* each success is one more reference; 0 = no such name (LOOKUP only) */
    uint64_t generation;  /* (nodeid, generation) is never used twice; 0 for the root */
    uint64_t entry_valid; /* seconds that the name may be cached */
    uint64_t attr_valid;  /* seconds that the attributes may be cached */
    uint32_t entry_valid_nsec;
    uint32_t attr_valid_nsec;
    struct fuse_attr attr;
};
_Static_assert(sizeof(struct fuse_entry_out) == 128, "fuse_entry_out");

/* Answers GETATTR and SETATTR; 96 bytes before 7.9. */
struct fuse_attr_out {
    uint64_t attr_valid; /* seconds that the attributes may be cached */
    uint32_t attr_valid_nsec;
    uint32_t dummy;
    struct fuse_attr attr;
};
_Static_assert(sizeof(struct fuse_attr_out) == 104, "fuse_attr_out");

#define FUSE_COMPAT_ENTRY_OUT_SIZE 120
#define FUSE_COMPAT_ATTR_OUT_SIZE 96

#define FUSE_GETATTR_FH (1u << 0)

/* Absent before 7.9. */
struct fuse_getattr_in {
    uint32_t getattr_flags; /* FUSE_GETATTR_FH */
    uint32_t dummy;
    uint64_t fh; /* with FUSE_GETATTR_FH */
};
_Static_assert(sizeof(struct fuse_getattr_in) == 16, "fuse_getattr_in");

/* fuse_setattr_in.valid */
#define FATTR_MODE (1u << 0)
#define FATTR_UID (1u << 1)
#define FATTR_GID (1u << 2)
#define FATTR_SIZE (1u << 3)
#define FATTR_ATIME (1u << 4)
#define FATTR_MTIME (1u << 5)
#define FATTR_FH (1u << 6)
#define FATTR_ATIME_NOW (1u << 7)     /* 7.9 */
#define FATTR_MTIME_NOW (1u << 8)     /* 7.9 */
#define FATTR_LOCKOWNER (1u << 9)     /* 7.9 */
#define FATTR_CTIME (1u << 10)        /* 7.23 */
#define FATTR_KILL_SUIDGID (1u << 11) /* 7.33 */

struct fuse_setattr_in {
    uint32_t valid; /* FATTR_* mask */
    uint32_t padding;
    uint64_t fh;         /* with FATTR_FH (7.3) */
    uint64_t size;       /* with FATTR_SIZE */
    uint64_t lock_owner; /* with FATTR_LOCKOWNER (7.9) */
    uint64_t atime;
    uint64_t mtime;
    uint64_t ctime; /* 7.23 (with FATTR_CTIME, writeback cache only) */
    uint32_t atimensec;
    uint32_t mtimensec;
    uint32_t ctimensec; /* 7.23 */
    uint32_t mode;
    uint32_t unused4;
    uint32_t uid;
    uint32_t gid;
    uint32_t unused5;
};
_Static_assert(sizeof(struct fuse_setattr_in) == 88, "fuse_setattr_in");

struct fuse_sx_time {
    int64_t tv_sec;
    uint32_t tv_nsec;
    uint32_t __reserved;
};
_Static_assert(sizeof(struct fuse_sx_time) == 16, "fuse_sx_time");

/* The bytes of statx(2)'s buffer. */
struct fuse_statx {
    uint32_t mask;       /* STATX_* that are valid */
    uint32_t blksize;    /* preferred I/O size */
    uint64_t attributes; /* STATX_ATTR_* */
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint16_t mode;
    uint16_t __spare0;
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t attributes_mask;
    struct fuse_sx_time atime;
    struct fuse_sx_time btime; /* birth time */
    struct fuse_sx_time ctime;
    struct fuse_sx_time mtime;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t dev_major; /* ignored by kernel */
    uint32_t dev_minor; /* ignored by kernel */
    uint64_t __spare2[14];
};
_Static_assert(sizeof(struct fuse_statx) == 256, "fuse_statx");

struct fuse_statx_in {
    uint32_t getattr_flags; /* FUSE_GETATTR_FH */
    uint32_t reserved;
    uint64_t fh;
    uint32_t sx_flags; /* AT_STATX_* */
    uint32_t sx_mask;  /* STATX_* wanted */
};
_Static_assert(sizeof(struct fuse_statx_in) == 24, "fuse_statx_in");

struct fuse_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t flags; /* 0 */
    uint64_t spare[2];
    struct fuse_statx stat;
};
_Static_assert(sizeof(struct fuse_statx_out) == 288, "fuse_statx_out");

/* 48 bytes before 7.4. */
struct fuse_kstatfs {
    uint64_t blocks; /* in frsize units */
    uint64_t bfree;
    uint64_t bavail;
    uint64_t files; /* inodes */
    uint64_t ffree;
    uint32_t bsize;   /* f_bsize */
    uint32_t namelen; /* f_namelen */
    uint32_t frsize;  /* f_frsize (7.4) */
    uint32_t padding;
    uint32_t spare[6];
};
_Static_assert(sizeof(struct fuse_kstatfs) == 80, "fuse_kstatfs");

struct fuse_statfs_out {
    struct fuse_kstatfs st;
};
_Static_assert(sizeof(struct fuse_statfs_out) == 80, "fuse_statfs_out");

#define FUSE_COMPAT_STATFS_SIZE 48

struct fuse_access_in {
    uint32_t mask; /* R_OK, W_OK, X_OK; 0 = does it exist */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_access_in) == 8, "fuse_access_in");

/* ---- references -------------------------------------------------------------------------------------- */

struct fuse_forget_in {
    uint64_t nlookup; /* references dropped */
};
_Static_assert(sizeof(struct fuse_forget_in) == 8, "fuse_forget_in");

/* fuse_forget_one records follow. */
struct fuse_batch_forget_in {
    uint32_t count;
    uint32_t dummy;
};
_Static_assert(sizeof(struct fuse_batch_forget_in) == 8, "fuse_batch_forget_in");

struct fuse_forget_one {
    uint64_t nodeid;
    uint64_t nlookup;
};
_Static_assert(sizeof(struct fuse_forget_one) == 16, "fuse_forget_one");

/* ---- names ------------------------------------------------------------------------------------------- */

/* The name follows, as in the next ones; 8 bytes before 7.12. */
struct fuse_mknod_in {
    uint32_t mode;  /* with type; the umask is applied already unless DONT_MASK */
    uint32_t rdev;  /* as in fuse_attr */
    uint32_t umask; /* 7.12 */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_mknod_in) == 16, "fuse_mknod_in");

#define FUSE_COMPAT_MKNOD_IN_SIZE 8

struct fuse_mkdir_in {
    uint32_t mode;  /* permissions, no type */
    uint32_t umask; /* 7.12 */
};
_Static_assert(sizeof(struct fuse_mkdir_in) == 8, "fuse_mkdir_in");

/* Two names follow: old, new. */
struct fuse_rename_in {
    uint64_t newdir; /* node of the directory renamed into */
};
_Static_assert(sizeof(struct fuse_rename_in) == 8, "fuse_rename_in");

struct fuse_rename2_in {
    uint64_t newdir;
    uint32_t flags; /* RENAME_NOREPLACE, EXCHANGE, WHITEOUT */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_rename2_in) == 16, "fuse_rename2_in");

struct fuse_link_in {
    uint64_t oldnodeid; /* what gets another name; the header names the directory */
};
_Static_assert(sizeof(struct fuse_link_in) == 8, "fuse_link_in");

/* ---- open files -------------------------------------------------------------------------------------- */

#define FUSE_OPEN_KILL_SUIDGID (1u << 0) /* truncation drops suid and sgid */

/* OPEN, OPENDIR */
struct fuse_open_in {
    uint32_t flags;      /* of open(2), without O_CREAT, O_EXCL, O_NOCTTY; O_TRUNC with ATOMIC_O_TRUNC only */
    uint32_t open_flags; /* FUSE_OPEN_* (7.33) */
};
_Static_assert(sizeof(struct fuse_open_in) == 8, "fuse_open_in");

/* CREATE, TMPFILE; the name follows. 8 bytes before 7.12. */
struct fuse_create_in {
    uint32_t flags;      /* of open(2), without O_NOCTTY */
    uint32_t mode;       /* S_IFREG and permissions */
    uint32_t umask;      /* 7.12 */
    uint32_t open_flags; /* FUSE_OPEN_* (7.33) */
};
_Static_assert(sizeof(struct fuse_create_in) == 16, "fuse_create_in");

#define FOPEN_DIRECT_IO (1u << 0)
#define FOPEN_KEEP_CACHE (1u << 1)
#define FOPEN_NONSEEKABLE (1u << 2) /* 7.10 */
#define FOPEN_CACHE_DIR (1u << 3)   /* 7.28 */
#define FOPEN_STREAM (1u << 4)
#define FOPEN_NOFLUSH (1u << 5)                /* 7.35 */
#define FOPEN_PARALLEL_DIRECT_WRITES (1u << 6) /* 7.38 */
#define FOPEN_PASSTHROUGH (1u << 7)            /* 7.40 */

struct fuse_open_out {
    uint64_t fh;         /* comes back in later requests */
    uint32_t open_flags; /* FOPEN_* */
    int32_t backing_id;  /* with FOPEN_PASSTHROUGH, from BACKING_OPEN (7.40) */
};
_Static_assert(sizeof(struct fuse_open_out) == 16, "fuse_open_out");

#define FUSE_RELEASE_FLUSH (1u << 0)
#define FUSE_RELEASE_FLOCK_UNLOCK (1u << 1) /* 7.17 */

/* RELEASE, RELEASEDIR; 16 bytes before 7.8. */
struct fuse_release_in {
    uint64_t fh;
    uint32_t flags;         /* open(2) flags of the file */
    uint32_t release_flags; /* FUSE_RELEASE_* */
    uint64_t lock_owner;    /* with FUSE_RELEASE_FLOCK_UNLOCK (7.8) */
};
_Static_assert(sizeof(struct fuse_release_in) == 24, "fuse_release_in");

struct fuse_flush_in {
    uint64_t fh;
    uint32_t unused;
    uint32_t padding;
    uint64_t lock_owner; /* whose POSIX locks go away (7.7) */
};
_Static_assert(sizeof(struct fuse_flush_in) == 24, "fuse_flush_in");

#define FUSE_READ_LOCKOWNER (1u << 1)

/* READ, READDIR, READDIRPLUS; 24 bytes before 7.9. */
struct fuse_read_in {
    uint64_t fh;
    uint64_t offset;     /* in a directory: cookie of the last entry, 0 = from the start */
    uint32_t size;       /* the answer is never longer */
    uint32_t read_flags; /* FUSE_READ_* */
    uint64_t lock_owner;
    uint32_t flags; /* the file's flags now */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_read_in) == 40, "fuse_read_in");

#define FUSE_WRITE_CACHE (1u << 0)
#define FUSE_WRITE_LOCKOWNER (1u << 1)
#define FUSE_WRITE_KILL_SUIDGID (1u << 2)
#define FUSE_WRITE_KILL_PRIV FUSE_WRITE_KILL_SUIDGID /* the name it had first */

/* 24 bytes before 7.9. */
struct fuse_write_in {
    uint64_t fh; /* a guess with FUSE_WRITE_CACHE */
    uint64_t offset;
    uint32_t size;        /* bytes that follow */
    uint32_t write_flags; /* FUSE_WRITE_* */
    uint64_t lock_owner;
    uint32_t flags; /* the file's flags now */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_write_in) == 40, "fuse_write_in");

#define FUSE_COMPAT_WRITE_IN_SIZE 24

/* WRITE, COPY_FILE_RANGE */
struct fuse_write_out {
    uint32_t size; /* bytes done */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_write_out) == 8, "fuse_write_out");

#define FUSE_FSYNC_FDATASYNC (1u << 0)

/* FSYNC, FSYNCDIR */
struct fuse_fsync_in {
    uint64_t fh;
    uint32_t fsync_flags; /* FUSE_FSYNC_* */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_fsync_in) == 16, "fuse_fsync_in");

struct fuse_fallocate_in {
    uint64_t fh;
    uint64_t offset;
    uint64_t length;
    uint32_t mode; /* FALLOC_FL_* */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_fallocate_in) == 32, "fuse_fallocate_in");

struct fuse_lseek_in {
    uint64_t fh;
    uint64_t offset;
    uint32_t whence; /* SEEK_DATA, SEEK_HOLE */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_lseek_in) == 24, "fuse_lseek_in");

struct fuse_lseek_out {
    uint64_t offset;
};
_Static_assert(sizeof(struct fuse_lseek_out) == 8, "fuse_lseek_out");

/* Both COPY_FILE_RANGE opcodes; the header names the source. */
struct fuse_copy_file_range_in {
    uint64_t fh_in;
    uint64_t off_in;
    uint64_t nodeid_out;
    uint64_t fh_out;
    uint64_t off_out;
    uint64_t len;   /* COPY_FILE_RANGE: at most 0xfffff000 */
    uint64_t flags; /* 0 */
};
_Static_assert(sizeof(struct fuse_copy_file_range_in) == 56, "fuse_copy_file_range_in");

/* COPY_FILE_RANGE_64 */
struct fuse_copy_file_range_out {
    uint64_t bytes_copied;
};
_Static_assert(sizeof(struct fuse_copy_file_range_out) == 8, "fuse_copy_file_range_out");

struct fuse_bmap_in {
    uint64_t block;
    uint32_t blocksize;
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_bmap_in) == 16, "fuse_bmap_in");

struct fuse_bmap_out {
    uint64_t block;
};
_Static_assert(sizeof(struct fuse_bmap_out) == 8, "fuse_bmap_out");

struct fuse_syncfs_in {
    uint64_t padding;
};
_Static_assert(sizeof(struct fuse_syncfs_in) == 8, "fuse_syncfs_in");

/* ---- directories ------------------------------------------------------------------------------------- */

/* The name follows without a NUL; the record is filled with zeros to a multiple of 8. */
struct fuse_dirent {
    uint64_t ino;     /* d_ino */
    uint64_t off;     /* cookie: where to go on after this entry */
    uint32_t namelen; /* 1 to 4095 (1024 before 6.18), no / in it */
    uint32_t type;    /* DT_*, the mode without its lower 12 bits */
};
_Static_assert(sizeof(struct fuse_dirent) == 24, "fuse_dirent");

struct fuse_direntplus {
    struct fuse_entry_out entry_out; /* nodeid 0 = no attributes; else one more reference, "." and ".." excepted */
    struct fuse_dirent dirent;
};
_Static_assert(sizeof(struct fuse_direntplus) == 152, "fuse_direntplus");

#define FUSE_NAME_OFFSET sizeof(struct fuse_dirent)
#define FUSE_NAME_OFFSET_DIRENTPLUS sizeof(struct fuse_direntplus)

/* ---- extended attributes ------------------------------------------------------------------------------ */

#define FUSE_SETXATTR_ACL_KILL_SGID (1u << 0)

/* Name and value follow. */
struct fuse_setxattr_in {
    uint32_t size;           /* of the value */
    uint32_t flags;          /* XATTR_CREATE, XATTR_REPLACE */
    uint32_t setxattr_flags; /* FUSE_SETXATTR_*; this and padding only with SETXATTR_EXT (7.33) */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_setxattr_in) == 16, "fuse_setxattr_in");

#define FUSE_COMPAT_SETXATTR_IN_SIZE 8

/* GETXATTR (a name follows), LISTXATTR */
struct fuse_getxattr_in {
    uint32_t size; /* room at the caller; 0 = asks for the size */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_getxattr_in) == 8, "fuse_getxattr_in");

/* The answer where the wanted size was 0. */
struct fuse_getxattr_out {
    uint32_t size; /* bytes needed */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_getxattr_out) == 8, "fuse_getxattr_out");

/* ---- locks ------------------------------------------------------------------------------------------- */

struct fuse_file_lock {
    uint64_t start; /* inclusive */
    uint64_t end;   /* inclusive; 2^63-1 = to EOF */
    uint32_t type;  /* F_RDLCK, F_WRLCK, F_UNLCK */
    uint32_t pid;   /* process, not thread; 0 in a request that unlocks or asks */
};
_Static_assert(sizeof(struct fuse_file_lock) == 24, "fuse_file_lock");

#define FUSE_LK_FLOCK (1u << 0)

/* 40 bytes before 7.9. */
struct fuse_lk_in {
    uint64_t fh;
    uint64_t owner;
    struct fuse_file_lock lk;
    uint32_t lk_flags; /* FUSE_LK_* */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_lk_in) == 48, "fuse_lk_in");

struct fuse_lk_out {
    struct fuse_file_lock lk; /* type F_UNLCK = nothing in the way */
};
_Static_assert(sizeof(struct fuse_lk_out) == 24, "fuse_lk_out");

/* ---- ioctl, poll -------------------------------------------------------------------------------------- */

#define FUSE_IOCTL_COMPAT (1u << 0)       /* the caller is a 32-bit program */
#define FUSE_IOCTL_UNRESTRICTED (1u << 1) /* CUSE */
#define FUSE_IOCTL_RETRY (1u << 2)        /* answer: fuse_ioctl_iovec records say what to copy; ask again */
#define FUSE_IOCTL_32BIT (1u << 3)
#define FUSE_IOCTL_DIR (1u << 4)        /* 7.18 */
#define FUSE_IOCTL_COMPAT_X32 (1u << 5) /* 7.30 */
#define FUSE_IOCTL_MAX_IOV 256          /* both directions together */

struct fuse_ioctl_in {
    uint64_t fh;
    uint32_t flags; /* FUSE_IOCTL_* */
    uint32_t cmd;
    uint64_t arg;      /* the caller's third argument, unread */
    uint32_t in_size;  /* bytes that follow */
    uint32_t out_size; /* most bytes of output */
};
_Static_assert(sizeof(struct fuse_ioctl_in) == 32, "fuse_ioctl_in");

struct fuse_ioctl_iovec {
    uint64_t base; /* address in the caller */
    uint64_t len;
};
_Static_assert(sizeof(struct fuse_ioctl_iovec) == 16, "fuse_ioctl_iovec");

/* Output follows, or with FUSE_IOCTL_RETRY the records, in before out. */
struct fuse_ioctl_out {
    int32_t result; /* of ioctl(2) */
    uint32_t flags; /* FUSE_IOCTL_RETRY */
    uint32_t in_iovs;
    uint32_t out_iovs;
};
_Static_assert(sizeof(struct fuse_ioctl_out) == 16, "fuse_ioctl_out");

#define FUSE_POLL_SCHEDULE_NOTIFY (1u << 0)

struct fuse_poll_in {
    uint64_t fh;
    uint64_t kh;     /* handle for FUSE_NOTIFY_POLL */
    uint32_t flags;  /* FUSE_POLL_* */
    uint32_t events; /* asked for (7.21) */
};
_Static_assert(sizeof(struct fuse_poll_in) == 24, "fuse_poll_in");

struct fuse_poll_out {
    uint32_t revents;
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_poll_out) == 8, "fuse_poll_out");

/* ---- extension area ----------------------------------------------------------------------------------- */

/*
 * The last total_extlen * 8 bytes of CREATE, TMPFILE, MKNOD, MKDIR and SYMLINK: records whose size is a multiple
 * of 8. It begins where the names end, hence anywhere.
 */
enum fuse_ext_type {
    FUSE_MAX_NR_SECCTX = 31, /* types up to this one are security contexts, as many as the type says */
    FUSE_EXT_GROUPS = 32     /* fuse_supp_groups */
};

struct fuse_ext_header {
    uint32_t size; /* of the record, this header included */
    uint32_t type; /* enum fuse_ext_type */
};
_Static_assert(sizeof(struct fuse_ext_header) == 8, "fuse_ext_header");

struct fuse_secctx_header {
    uint32_t size;      /* of the record, this header included */
    uint32_t nr_secctx; /* 0 to FUSE_MAX_NR_SECCTX */
};
_Static_assert(sizeof(struct fuse_secctx_header) == 8, "fuse_secctx_header");

/* Then the context's name with its NUL and `size` bytes of value. */
struct fuse_secctx {
    uint32_t size; /* label length */
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_secctx) == 8, "fuse_secctx");

struct fuse_supp_groups {
    uint32_t nr_groups; /* a gid each follows */
};
_Static_assert(sizeof(struct fuse_supp_groups) == 4, "fuse_supp_groups");

/* ---- notifications ------------------------------------------------------------------------------------ */

/* fuse_out_header.error of a message whose unique is 0. */
enum fuse_notify_code {
    FUSE_NOTIFY_POLL = 1,        /* 7.11 */
    FUSE_NOTIFY_INVAL_INODE = 2, /* 7.12 */
    FUSE_NOTIFY_INVAL_ENTRY = 3, /* 7.12 */
    FUSE_NOTIFY_STORE = 4,       /* 7.15 */
    FUSE_NOTIFY_RETRIEVE = 5,    /* 7.15 */
    FUSE_NOTIFY_DELETE = 6,      /* 7.18 */
    FUSE_NOTIFY_RESEND = 7,      /* 7.40; no body */
    FUSE_NOTIFY_INC_EPOCH = 8,   /* 7.44; no body */
    FUSE_NOTIFY_PRUNE = 9        /* 7.45 */
};

struct fuse_notify_poll_wakeup_out {
    uint64_t kh;
};
_Static_assert(sizeof(struct fuse_notify_poll_wakeup_out) == 8, "fuse_notify_poll_wakeup_out");

struct fuse_notify_inval_inode_out {
    uint64_t ino; /* node id, not st_ino */
    int64_t off;  /* below 0 = attributes only */
    int64_t len;  /* 0 or less = to the end */
};
_Static_assert(sizeof(struct fuse_notify_inval_inode_out) == 24, "fuse_notify_inval_inode_out");

#define FUSE_EXPIRE_ONLY (1u << 0)

/* The name follows with its NUL, which namelen does not count; so for DELETE. */
struct fuse_notify_inval_entry_out {
    uint64_t parent;
    uint32_t namelen; /* without NUL */
    uint32_t flags;   /* FUSE_EXPIRE_ONLY (7.38) */
};
_Static_assert(sizeof(struct fuse_notify_inval_entry_out) == 16, "fuse_notify_inval_entry_out");

struct fuse_notify_delete_out {
    uint64_t parent;
    uint64_t child; /* must be what the name means to the kernel */
    uint32_t namelen;
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_notify_delete_out) == 24, "fuse_notify_delete_out");

/* `size` bytes follow. */
struct fuse_notify_store_out {
    uint64_t nodeid;
    uint64_t offset;
    uint32_t size;
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_notify_store_out) == 24, "fuse_notify_store_out");

struct fuse_notify_retrieve_out {
    uint64_t notify_unique; /* the server's choice, hdr.unique of NOTIFY_REPLY */
    uint64_t nodeid;
    uint64_t offset;
    uint32_t size;
    uint32_t padding;
};
_Static_assert(sizeof(struct fuse_notify_retrieve_out) == 32, "fuse_notify_retrieve_out");

/* In NOTIFY_REPLY, before the data; as long as fuse_write_in. */
struct fuse_notify_retrieve_in {
    uint64_t dummy1;
    uint64_t offset;
    uint32_t size; /* bytes that follow */
    uint32_t dummy2;
    uint64_t dummy3;
    uint64_t dummy4;
};
_Static_assert(sizeof(struct fuse_notify_retrieve_in) == 40, "fuse_notify_retrieve_in");

/* `count` node ids of 64 bits follow. */
struct fuse_notify_prune_out {
    uint32_t count;
    uint32_t padding;
    uint64_t spare;
};
_Static_assert(sizeof(struct fuse_notify_prune_out) == 16, "fuse_notify_prune_out");

/* ---- virtiofs: direct mappings ------------------------------------------------------------------------ */

#define FUSE_SETUPMAPPING_FLAG_WRITE (1ull << 0)
#define FUSE_SETUPMAPPING_FLAG_READ (1ull << 1)

struct fuse_setupmapping_in {
    uint64_t fh;
    uint64_t foffset;
    uint64_t len;
    uint64_t flags;   /* FUSE_SETUPMAPPING_FLAG_* */
    uint64_t moffset; /* offset in the DAX window */
};
_Static_assert(sizeof(struct fuse_setupmapping_in) == 40, "fuse_setupmapping_in");

/* fuse_removemapping_one records follow. */
struct fuse_removemapping_in {
    uint32_t count;
};
_Static_assert(sizeof(struct fuse_removemapping_in) == 4, "fuse_removemapping_in");

struct fuse_removemapping_one {
    uint64_t moffset;
    uint64_t len;
};
_Static_assert(sizeof(struct fuse_removemapping_one) == 16, "fuse_removemapping_one");

#define FUSE_REMOVEMAPPING_MAX_ENTRY (4096u / sizeof(struct fuse_removemapping_one))

/* ---- character devices -------------------------------------------------------------------------------- */

#define CUSE_UNRESTRICTED_IOCTL (1u << 0)
#define CUSE_INIT_INFO_MAX 4096

struct cuse_init_in {
    uint32_t major;
    uint32_t minor;
    uint32_t unused;
    uint32_t flags; /* CUSE_UNRESTRICTED_IOCTL */
};
_Static_assert(sizeof(struct cuse_init_in) == 16, "cuse_init_in");

/* Strings of at most CUSE_INIT_INFO_MAX bytes follow. */
struct cuse_init_out {
    uint32_t major;
    uint32_t minor;
    uint32_t unused;
    uint32_t flags;
    uint32_t max_read;
    uint32_t max_write;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint32_t spare[10];
};
_Static_assert(sizeof(struct cuse_init_out) == 72, "cuse_init_out");

/* ---- calls on the device ------------------------------------------------------------------------------ */

struct fuse_backing_map {
    int32_t fd;     /* of the backing file */
    uint32_t flags; /* must be 0 */
    uint64_t padding;
};
_Static_assert(sizeof(struct fuse_backing_map) == 16, "fuse_backing_map");

#define FUSE_DEV_IOC_MAGIC 229
#define FUSE_DEV_IOC_CLONE _IOR(FUSE_DEV_IOC_MAGIC, 0, uint32_t)
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(FUSE_DEV_IOC_MAGIC, 2, uint32_t)
#define FUSE_DEV_IOC_SYNC_INIT _IO(FUSE_DEV_IOC_MAGIC, 3)

/* ---- io_uring (7.42) ----------------------------------------------------------------------------------- */

#define FUSE_URING_IN_OUT_HEADER_SZ 128
#define FUSE_URING_OP_IN_OUT_SZ 128

enum fuse_uring_cmd {
    FUSE_IO_URING_CMD_INVALID = 0,
    FUSE_IO_URING_CMD_REGISTER = 1,
    FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2
};

struct fuse_uring_ent_in_out {
    uint64_t flags;      /* 0; 7.46: FUSE_URING_ENT_ZERO_COPY */
    uint64_t commit_id;  /* given back with COMMIT_AND_FETCH; equals the unique */
    uint32_t payload_sz; /* bytes used in the payload buffer, both ways */
    uint32_t padding;    /* 7.46: offset in the pool */
    uint64_t reserved;
};
_Static_assert(sizeof(struct fuse_uring_ent_in_out) == 32, "fuse_uring_ent_in_out");

/* The header buffer of an entry. */
struct fuse_uring_req_header {
    uint8_t in_out[FUSE_URING_IN_OUT_HEADER_SZ]; /* fuse_in_header; the answer puts fuse_out_header here */
    uint8_t op_in[FUSE_URING_OP_IN_OUT_SZ];      /* the fixed structure of the opcode */
    struct fuse_uring_ent_in_out ring_ent_in_out;
};
_Static_assert(sizeof(struct fuse_uring_req_header) == 288, "fuse_uring_req_header");

/* In the command area of the submission. */
struct fuse_uring_cmd_req {
    uint64_t flags;     /* 0 */
    uint64_t commit_id; /* 0 in REGISTER */
    uint16_t qid;       /* queue = number of a CPU */
    uint8_t padding[6];
};
_Static_assert(sizeof(struct fuse_uring_cmd_req) == 24, "fuse_uring_cmd_req");

/* ---- 7.46 ---------------------------------------------------------------------------------------------- */

/*
 * Known, not spoken yet: nothing here is negotiated. Its place in the layouts above:
 *
 *   FUSE_HAS_IO_URING_BUFPOOL         INIT flag, bit 43 (told)
 *   FUSE_IO_URING_CMD_ADD_QUEUE       command 3; flag 1 = zero copy
 *   FUSE_IO_URING_CMD_ADD_BUFPOOL     command 4; address u64, length u32, cut in pieces of one payload
 *   fuse_uring_cmd_req + 24           u16: index of a zero-copy buffer (REGISTER with an empty payload)
 *   fuse_uring_ent_in_out.padding     u32: offset of the payload in the pool
 *   fuse_uring_ent_in_out.flags       1 = zero copy
 *   FOPEN_IO_URING_ZERO_COPY          fuse_open_out.open_flags, bit 8
 *
 * So a payload is found as address + offset, and unknown FOPEN_* bits pass through.
 */

#endif

/* What the answer to an opcode holds after the 16-byte header. */
enum mf__reply_kind {
    MF__REPLY_NEVER, /* must not be answered */
    MF__REPLY_EMPTY,
    MF__REPLY_ENTRY,
    MF__REPLY_ATTR,
    MF__REPLY_OPEN,
    MF__REPLY_CREATE, /* entry, then open */
    MF__REPLY_DATA,   /* at most the wanted length */
    MF__REPLY_XATTR,  /* data; a size where the wanted length is 0 */
    MF__REPLY_WRITE,
    MF__REPLY_STATFS,
    MF__REPLY_LK,
    MF__REPLY_LSEEK,
    MF__REPLY_BMAP,
    MF__REPLY_IOCTL,
    MF__REPLY_POLL,
    MF__REPLY_STATX,
    MF__REPLY_COPY64,
    MF__REPLY_INIT
};

/* Properties of an opcode (column of opcode.def). */
#define MF__OPC_ACL 0x1u     /* refused to users that the session's ACL excludes */
#define MF__OPC_SESSION 0x2u /* handled by the session itself: INIT, DESTROY, INTERRUPT, NOTIFY_REPLY */
#define MF__OPC_ALWAYS 0x4u  /* answered with success in C when not implemented: RELEASE, RELEASEDIR */
#define MF__OPC_LATER 0x8u   /* known, not offered to filesystems yet */

/* One row of opcode.def. */
struct mf__opcode {
    const char *name;    /* "LOOKUP" */
    uint8_t known;       /* 0 in the holes of the table */
    uint8_t since;       /* protocol minor */
    uint16_t args_size;  /* of the fixed structure after the header, today */
    uint16_t args_least; /* of its oldest form that is accepted */
    uint8_t names;       /* NUL-terminated names that follow */
    uint8_t reply;       /* enum mf__reply_kind */
    uint8_t slot;        /* the MF_OP_* that serves it, 0 = none */
    uint8_t props;       /* MF__OPC_* */
};

#define MF__OPCODES 64u
extern const struct mf__opcode mf__opcodes[MF__OPCODES];
extern const struct mf__opcode mf__no_opcode; /* known = 0 */

/* Row of an opcode; mf__no_opcode for every number that is none (CUSE_INIT included). */
static inline const struct mf__opcode *mf__opcode(uint32_t opcode)
{
    return opcode < MF__OPCODES && mf__opcodes[opcode].known ? &mf__opcodes[opcode] : &mf__no_opcode;
}

/*
 * One message as a transport delivers it: the header copied out, the fixed structure (args), what follows it
 * (body: names, data) and the extension area. On the device they lie one after the other; in a ring entry
 * args and body live in different buffers. Nothing need be aligned.
 */
struct mf__msg {
    struct fuse_in_header hdr;
    const uint8_t *args;
    const uint8_t *body;
    const uint8_t *ext;
    uint32_t args_len;
    uint32_t body_len; /* without the extension area */
    uint32_t ext_len;
};

/*
 * Split one contiguous message of len bytes. -EPROTO: shorter than a header, or lengths that contradict; then the
 * header is there as far as the message goes, the rest of it 0, and the views are empty.
 */
int mf__msg_split(struct mf__msg *msg, const void *buf, size_t len);

/*
 * The same for a ring entry: header and op_in from the 288-byte header buffer, `payload_len` bytes of
 * payload, of which hdr.total_extlen * 8 at the end are the extension area.
 */
int mf__msg_from_ring(struct mf__msg *msg, const void *header, const void *payload, size_t payload_len);

/*
 * Decode into the flat record: everything but buf, req, session, reader, answer. `one` holds the element of
 * a single FORGET. `flags` are the INIT flags in force (SETXATTR_EXT and the like change layouts).
 * 0; -EPROTO malformed; -ENOSYS no such opcode.
 */
int mf__decode(const struct mf__msg *msg, uint64_t flags, struct mf_call *call, struct mf_forget *one);

/* INIT, INTERRUPT: the session's own messages. 0 or -EPROTO. */
int mf__decode_init(const struct mf__msg *msg, struct fuse_init_in *out);
int mf__decode_interrupt(const struct mf__msg *msg, uint64_t *unique);

/* Extension area (7.36 security contexts, 7.38 groups). Iterates records; unknown types are skipped by size. */
struct mf__ext_secctx {
    const char *name; /* NUL-terminated */
    const uint8_t *value;
    uint32_t value_len;
};
/* n-th security context: 0, -ENOENT no more, -EPROTO malformed. */
int mf__ext_secctx(const struct mf__msg *msg, uint32_t n, struct mf__ext_secctx *out);
/* n-th supplementary group: likewise. */
int mf__ext_group(const struct mf__msg *msg, uint32_t n, uint32_t *gid);

/* ---- replies: each writes the body at dst and returns its length --------------------------------- */
size_t mf__put_entry(void *dst, const struct mf_entry *e);                                   /* 128 */
size_t mf__put_attr(void *dst, uint64_t timeout_ns, uint64_t node, const struct mf_attr *a); /* 104; ino 0 = node */
size_t mf__put_open(void *dst, uint64_t fh, uint32_t flags, int32_t backing_id);             /* 16 */
size_t mf__put_write(void *dst, uint32_t size);                                              /* 8 */
size_t mf__put_statfs(void *dst, const struct mf_statfs *st);                                /* 80 */
size_t mf__put_xattr_size(void *dst, uint32_t size);                                         /* 8 */
size_t mf__put_lk(void *dst, const struct mf_lock *lk);                                      /* 24 */
size_t mf__put_lseek(void *dst, uint64_t offset);                                            /* 8 */
size_t mf__put_bmap(void *dst, uint64_t block);                                              /* 8 */
size_t mf__put_poll(void *dst, uint32_t revents);                                            /* 8 */
size_t mf__put_copy64(void *dst, uint64_t bytes);                                            /* 8 */
size_t mf__put_ioctl(void *dst, int32_t result, uint32_t flags, uint32_t in_iovs, uint32_t out_iovs); /* 16 */
size_t mf__put_statx(void *dst, uint64_t timeout_ns, const struct fuse_statx *sx);                    /* 288 */
size_t mf__put_init(void *dst, const struct fuse_init_out *out, uint32_t kernel_minor); /* 8, 24 or 64 by minor */
void mf__put_header(void *dst, size_t body_len, int error, uint64_t unique);            /* 16 at dst */

/*
 * Is this what a filesystem may give as entry, attr? 0 or -EINVAL: bad type bits, size > 2^63-1, ns >= 10^9; in an
 * entry also node 0 or the root where it is no lookup (which may find nothing, and the root at "." and "..").
 */
int mf__check_attr(const struct mf_attr *a);
int mf__check_entry(const struct mf_entry *e, bool lookup);
/* A name that may go to the kernel: 1..4095 bytes, no '/', no NUL. 0 or -EINVAL. */
int mf__check_name(const char *name, uint64_t len);

/*
 * ---- directory entries: bytes written at dst, -ENOSPC, -EINVAL -------------------------------------
 * `type` is S_IFMT bits. In direntplus type and d_ino (the node where it is 0) come from the entry's attributes.
 */
int64_t mf__put_dirent(void *dst, uint64_t room, const char *name, uint64_t name_len, uint64_t ino, uint32_t type,
                       uint64_t next);
int64_t mf__put_direntplus(void *dst, uint64_t room, const char *name, uint64_t name_len, const struct mf_entry *e,
                           uint64_t next);

/*
 * ---- notifications: the whole message at dst, length returned; -ENOSPC, -EINVAL ---------------------
 * store_head writes the 40 bytes before the data, and counts these in the header.
 */
int64_t mf__put_notify_inval_inode(void *dst, size_t room, uint64_t node, int64_t offset, int64_t length);
int64_t mf__put_notify_inval_entry(void *dst, size_t room, uint64_t parent, const char *name, uint64_t name_len,
                                   uint32_t flags);
int64_t mf__put_notify_delete(void *dst, size_t room, uint64_t parent, uint64_t child, const char *name,
                              uint64_t name_len);
int64_t mf__put_notify_poll(void *dst, size_t room, uint64_t kh);
int64_t mf__put_notify_store_head(void *dst, size_t room, uint64_t node, uint64_t offset, uint32_t size);
int64_t mf__put_notify_retrieve(void *dst, size_t room, uint64_t unique, uint64_t node, uint64_t offset, uint32_t size);
int64_t mf__put_notify_prune(void *dst, size_t room, const uint64_t *nodes, uint32_t count);
int64_t mf__put_notify_plain(void *dst, size_t room, int32_t code); /* RESEND, INC_EPOCH */

#endif

struct mf__channel;

#define MF__BODY_LEAD 512u /* bytes */

struct mf__io {
    struct mf__msg msg; /* the received message, by views */
    uint8_t *recv;      /* device: where a message is read to; WRITE's data fall on a page boundary */
    size_t recv_size;
    uint8_t *body; /* where the body of the answer may be built; MF__BODY_LEAD before it are the transport's */
    size_t body_size;
    struct mf__channel *ch;   /* where it was received, hence where it is answered */
    uint64_t commit_id;       /* ring: id to give back; 0 = nothing is in hand */
    uint32_t entry;           /* ring: index of the entry */
    uint32_t queue;           /* ring: queue */
    bool own_thread;          /* ring: the answer comes from a reader of this very channel, */
    bool receives_next;       /* which is about to receive there: the answer may go out with that */
    struct mf__own_ring *own; /* ring: the reader's own, or NULL; where the answer comes from elsewhere: NULL */
};

struct mf__transport {
    const char *name;
    uint32_t kind; /* enum mf_transport_kind */

    /*
     * Wait for one message. `spare` is an io that the transport may fill; *got is the io that was filled.
     * 0; -EINTR woken, or a signal: look whether to stop; -EAGAIN nothing (non-blocking descriptor);
     * -ENODEV the mount is gone; -ECONNABORTED it was aborted; other: the channel is broken.
     * A message that cannot be split gives 0 with (*got)->msg.hdr as far as it was there and hdr.opcode 0.
     */
    int (*receive)(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got);

    /*
     * Answer the request in `io`: error is 0 or a negative errno; the body is iov[0..n), which may begin in
     * io->body. From any thread. 0; MF__SENT_LATER; -ENOENT nobody waits for it; other errors of the descriptor.
     */
    int (*send)(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov, int n);

    /* Write one ready-made message (notification, answer to INTERRUPT). 0 or -errno. */
    int (*write_raw)(struct mf__channel *ch, const void *msg, size_t len);

    /* Another channel of the same connection. 0, -ENOTSUP or the reason why not. */
    int (*clone)(struct mf__channel *ch, struct mf__channel **out);

    /* Wake a thread blocked in receive on this channel where signals cannot: memory. NULL = a signal does. */
    void (*wake)(struct mf__channel *ch);

    void (*close)(struct mf__channel *ch);
};

/* The answer lies where it belongs, and goes out with the thread's next receive, or with another one's answer. */
#define MF__SENT_LATER 1

/* Ring: before which handlers the one who waits for requests calls another one to wait in his place. */
enum mf__calling {
    MF__CALL_ALWAYS,
    MF__CALL_SLOW, /* such as waited of late; the answers of others may be kept back, and somebody looks from time to time */
    MF__OWN_RINGS /* all, but those who receive on a ring of their own: ring_own.c */
};

/* Of one that waits to take over: time in which a handler that waits is found among such as return at once; */
#define MF__WATCH_NS 200000u
#define MF__PATIENCE 256u /* and looks that found none: each may delay a request by some microseconds */

struct mf__channel {
    const struct mf__transport *ops;
    _Atomic uint32_t refs;    /* readers and unanswered requests: invariant 10 */
    uint32_t index;           /* 0 = the first, n = the n-th made */
    _Atomic uint32_t calling; /* enum mf__calling */
    int fd;                   /* -1 = none */
    void *impl;               /* the transport's own */
};

/* device.c: takes the descriptor over. */
int mf__device_channel(int fd, struct mf__channel **out);
/* clone.c: a fresh descriptor bound to the connection of `fd`. 0, -ENOTSUP, -errno; *out is O_CLOEXEC. */
int mf__clone_fd(int fd, int *out);
/* 1 if fd is a descriptor of /dev/fuse; -EBADF; -ENOTTY if it is something else. */
int mf__is_fuse_fd(int fd);
/* N of /sys/fs/fuse/connections/N, from fdinfo or statfs; 0 = unknown. */
uint64_t mf__connection_number(int fd);

/* memory.c: channel 0 of a virtual kernel. */
struct mf_vkernel;
int mf__memory_channel(struct mf_vkernel *vk, struct mf__channel **out);
/* The system calls of its io_uring, and what they want to have back; NULL: it offers none. */
struct mf__uring_sys;
const struct mf__uring_sys *mf__memory_uring(struct mf__channel *ch, void **kernel);

/* Bytes of all pieces; SIZE_MAX where they are more than can be. */
static inline size_t mf__iov_length(const struct iovec *iov, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++)
        sum = iov[i].iov_len < SIZE_MAX - sum ? sum + iov[i].iov_len : SIZE_MAX;
    return sum;
}

static inline void mf__channel_get(struct mf__channel *ch)
{
    atomic_fetch_add_explicit(&ch->refs, 1, memory_order_relaxed);
}

static inline void mf__channel_put(struct mf__channel *ch)
{
    if (atomic_fetch_sub_explicit(&ch->refs, 1, memory_order_acq_rel) == 1)
        ch->ops->close(ch);
}

#endif
/* core/wire/uring.h */
/* SPDX-License-Identifier: MIT */
/*
 * uring.h - the part of the io_uring system calls that the ring transport uses, as numbers and offsets: an
 * extension module must build where the system's headers are older than its kernel.
 */
#ifndef MF_WIRE_URING_H
#define MF_WIRE_URING_H


#define MF__SYS_IO_URING_SETUP 425 /* the same on every architecture */
#define MF__SYS_IO_URING_ENTER 426
#define MF__SYS_IO_URING_REGISTER 427

#define MF__URING_SETUP_CQSIZE (1u << 3)
#define MF__URING_SETUP_SQE128 (1u << 10)
#define MF__URING_ENTER_GETEVENTS 1u
#define MF__URING_REGISTER_FILES 2u
#define MF__URING_OP_NOP 0u
#define MF__URING_OP_MSG_RING 40u /* 5.18: completes on the ring `fd`, with the user_data that is in `offset` */
#define MF__URING_OP_URING_CMD 46u
#define MF__URING_FIXED_FILE 1u    /* sqe.flags */
#define MF__URING_SKIP_SUCCESS 64u /* likewise: only a failure completes here */
#define MF__URING_OFF_SQES 0x10000000

/* 7.46, not negotiated: a queue's pool of payloads, told before its first entry. Layout of the command's area. */
#define MF__FUSE_ADD_BUFPOOL 4u
struct mf__fuse_bufpool {
    uint64_t address;
    uint32_t length; /* whole payloads */
    uint16_t queue;
    uint16_t pad;
};

#define MF__SQE_SIZE 128u
#define MF__CQE_SIZE 16u

/* A 128-byte submission entry for IORING_OP_URING_CMD, as far as it is used. */
struct mf__sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd; /* or the index of a fixed file */
    union {
        uint64_t offset;
        struct {
            uint32_t cmd_op, pad1;
        };
    };
    uint64_t addr;
    uint32_t len;
    uint32_t cmd_flags;
    uint64_t user_data;
    uint64_t pad2;
    uint8_t cmd[80];
};
_Static_assert(sizeof(struct mf__sqe) == MF__SQE_SIZE, "sqe");

struct mf__cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};
_Static_assert(sizeof(struct mf__cqe) == MF__CQE_SIZE, "cqe");

struct mf__uring_offsets {
    uint32_t head, tail, ring_mask, ring_entries;
    uint32_t a, b, c, d; /* submission: flags, dropped, array; completion: overflow, cqes, flags */
    uint64_t user_addr;
};

struct mf__uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct mf__uring_offsets sq; /* c = array */
    struct mf__uring_offsets cq; /* b = cqes */
};
_Static_assert(sizeof(struct mf__uring_params) == 120, "io_uring_params");

#endif

/*
 * The system calls of a ring, so that a virtual kernel can stand in for the system. `kernel` is whatever they want
 * to have back. Results are 0 or more, or a negative errno.
 */
struct mf__uring_sys {
    uint32_t (*queues)(void *kernel);                                              /* possible CPUs; 0 = unknown */
    int (*setup)(void *kernel, uint32_t entries, struct mf__uring_params *params); /* a descriptor */
    int (*enter)(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags);
    int (*attach)(void *kernel, int fd, struct mf__channel *device); /* fixed file 0 is the device */
    int (*map)(void *kernel, int fd, size_t size, uint64_t offset, void **out);
    void (*unmap)(void *kernel, void *base, size_t size);
    void (*close)(void *kernel, int fd);
    bool (*over)(void *kernel, struct mf__channel *device); /* the connection is gone: a receive would not wait */
};
extern const struct mf__uring_sys mf__uring_system;
/* Memory that the kernel writes to: a forked child must not share it, or it would be copied under its feet. */
void mf__uring_keep_from_children(const struct mf__region *region);

struct mf__ring_opts {
    const struct mf__uring_sys *sys; /* stays the caller's, like what is below */
    void *kernel;
    struct mf__channel *device; /* of the connection */
    uint32_t first_queue;       /* the ring serves queues first, first + step, ... below queues */
    uint32_t step;
    uint32_t queues;          /* of the connection: the possible CPUs */
    uint32_t depth;           /* entries per queue */
    uint32_t max_payload;     /* bytes of the largest payload that the kernel was promised */
    uint32_t index;           /* of the channel */
    struct mf__channel *last; /* the ring whose last queue is the mount's; NULL: it is this one */
    uint32_t others;          /* then so many rings are registered before that queue */
    bool pool;                /* 7.46: payloads lie in a pool of their queue, at an offset that the kernel says */
    /* The kernel has taken the mount back to the device. Called on a thread that receives, with no lock held. */
    void (*refused)(void *user, int error);
    /* May the handler of such a request wait? On the thread that received it; asked where MF__CALL_SLOW is in force. */
    bool (*may_wait)(void *user, uint32_t opcode);
    /* NULL, or: the receiving thread is about to enter the kernel, so it keeps nothing that others may wait for. */
    void (*leave)(void *user);
    void *user;
};

/* Whether rings can work here at all: 0, or a negative errno with the reason in words. */
int mf__ring_probe(const struct mf__uring_sys *sys, void *kernel, char *reason, size_t room);

/*
 * Make a ring with its memory. Nothing is registered yet: the first receive does that, in the task that shall
 * serve, since the kernel copies requests in the task that submitted an entry's last command.
 */
int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out);

/* What a ring has done since it was made. */
struct mf__ring_counts {
    uint64_t requests; /* that came over it */
    uint64_t behind;   /* of them, that were not the only one to be there */
    uint64_t waits;    /* for completions */
    uint64_t batches;  /* submissions of more than one answer */
    uint64_t calls;    /* of a follower, since a handler might wait */
    uint64_t blocked;  /* times that a follower found the queue behind a handler that waits */
    uint64_t nudges;   /* wake-ups for answers of foreign threads */
    uint64_t own;      /* of the requests, that came over readers' own rings */
};
void mf__ring_counts(struct mf__channel *ch, struct mf__ring_counts *out);

/* A thread of the ring that will not receive on it next: what it has left to that goes out now. own: its own, or NULL. */
void mf__ring_flush(struct mf__channel *ch, struct mf__own_ring *own);

/* Let an idle thread of the ring wait for completions, unless somebody does, or will before he waits for anything else. */
void mf__ring_call(struct mf__channel *ch);
/*
 * Call one if it should have been: nobody has taken what was there already at the last look. From one thread, every some
 * milliseconds while requests come; the threads of the ring themselves look where that was not in vain of late.
 */
void mf__ring_look(struct mf__channel *ch);

/*
 * Rings of readers' own, for where handlers wait: see ring_own.c. Each belongs to the ring that it was taken from, and ends
 * with it. A reader that has one says so at each receive (mf__io.own), until it gives it back.
 */
int mf__ring_take_own(struct mf__channel *ch, struct mf__own_ring **out);
/* On the reader's thread. What still holds an entry another one has to take: readers without one are made to look. */
void mf__own_ring_give(struct mf__own_ring *own);
/* May a request come there? Its reader must wait for it, or give it back. */
bool mf__own_ring_holds(const struct mf__own_ring *own);
/* Wake the reader that waits there. false: it does not. */
bool mf__own_ring_wake(struct mf__own_ring *own);
/* Is there one with an entry that nobody has taken? Those without one take it where MF__OWN_RINGS is in force. */
bool mf__ring_has_orphans(struct mf__channel *ch);

/* Will a receive that follows now find a request without entering the kernel? Unless another thread is faster. */
bool mf__ring_has_more(struct mf__channel *ch);
/* Has the kernel taken the entries? 0 not all yet, 1 yes, negative: it refused, and the mount uses the device. */
int mf__ring_state(struct mf__channel *ch);

/* Another ring of the mount was refused: this one will never serve, and those who receive on it return. */
void mf__ring_refuse(struct mf__channel *ch, int error);

/*
 * The connection has ended: take back the entries that have come. true: these were all. No thread may be receiving, nor any
 * request be in hand. One that is on its way into an entry comes there only when the task that armed it has run; should the
 * ring be closed before that, its client gets ECANCELED.
 */
bool mf__ring_take_back(struct mf__channel *ch);

/*
 * Close the ring while its threads still live: a thread that exits with an entry armed takes the request
 * that comes next down with it. No thread may be receiving; one that comes later gets -ENODEV, and answers that
 * come later go nowhere. The channel itself stays until its last reference goes.
 */
void mf__ring_shut(struct mf__channel *ch);
/* In a child of fork(), before it is closed there: the ring is the parent's, and so are the threads that use it. */
void mf__ring_forget(struct mf__channel *ch);
/* There, as soon as it is one: async-signal-safe. */
void mf__ring_close_inherited(struct mf__channel *ch);

#endif

struct mf_session;
struct mf__reader;

#define MF__MAX_CREWS 1025u /* the device's, and one per ring */

struct mf__crew {
    struct mf__channel *ring; /* NULL: each member receives on a channel of its own */
    int32_t cpu;              /* where members run; -1 = anywhere */
    _Atomic uint32_t members;
    _Atomic uint32_t limit; /* with more members than this the next that is done parks itself */
    _Atomic uint32_t base;  /* members that it keeps when all is quiet */
    _Atomic uint64_t growths, shrinks;
    _Atomic uint64_t rate;         /* requests of a millisecond at the monitor's last look */
    _Atomic uint64_t led;          /* clients that were led away from them: mf__placement_step_up() */
    struct mf__ring_counts counts; /* of the ring, when that is gone */
    uint32_t most;                 /* members that it may grow to; under the session's lock */
    /* The monitor's own. */
    uint64_t requests;
    uint64_t served; /* within the window */
    uint32_t least_free;
    uint32_t stuck_ticks;
    uint32_t busy_looks, asleep_looks; /* all members in handlers; and asleep there, in a row */
    uint32_t fast_ticks;               /* in a row in which handlers returned at once */
    uint32_t thin_ticks;               /* in a row in which few requests came */
    uint32_t calm_ticks;               /* in a row in which a member was free */
    uint64_t timed, slow;              /* handlers of its members, all in all */
    uint32_t slow_gap;                 /* of those timed, since one waited */
    bool often_slow;
    int64_t timed_mean, slow_mean; /* of the last looks: in 1/1024 of one */
    uint64_t ran_ns;               /* CPU time of its members when that began */
    uint32_t ticks;
    uint32_t window; /* ticks without need after which it shrinks */
    bool taken;      /* a member, at the end of the last one */
    uint64_t asked;  /* requests on the ring, at placement's last look */
};

/* Divide the readers into crews; called once, before they start, with the lock held. 0 or -ENOMEM. */
int mf__crews_make(struct mf_session *s);
void mf__crews_free(struct mf_session *s);

/* Readers are placed anew (enum mf__place_mode): how many receive on the device depends on that. The monitor's thread. */
void mf__crews_place(struct mf_session *s, uint32_t before, uint32_t mode);
/* Of the readers of the device, while there is one for each CPU: a CPU that has none gets one from where there are more. */
void mf__crew_spread(struct mf_session *s);
/* Members of the device's that receive without a seat, while its door is shut, look whether they should. */
void mf__crew_recall_unseated(struct mf_session *s);
/* The CPU that is this reader's as a member of `c`; -1: any. */
int32_t mf__crew_cpu(const struct mf__reader *r, const struct mf__crew *c);
/* Fewer members: whoever looks next parks itself, and those that wait for requests are made to look. */
void mf__crew_shrink(struct mf_session *s, struct mf__crew *c, uint32_t limit);

/* One reader more was asked for while they run: `r`, whose thread starts next. The session's lock is held. */
void mf__crews_widen(struct mf_session *s, struct mf__reader *r);

/* On a reader's thread: the channel to receive on now; waits while it is parked. NULL: the session stops. */
struct mf__channel *mf__crew_channel(struct mf__reader *r);
/* The ring of this reader's crew was refused by the kernel: serve the device instead. */
void mf__crew_fall_back(struct mf__reader *r, int error);
/* The reader will not receive next: answers that it left to that go out, and it leaves the language. Its own thread. */
void mf__reader_flush(struct mf__reader *r);
/* The reader ends. */
void mf__crew_leave(struct mf__reader *r);

/* The thread that watches. */
int mf__monitor_start(struct mf_session *s);
void mf__monitor_stop(struct mf_session *s);
void mf__monitor_wake(struct mf_session *s);
bool mf__handlers_wait(struct mf_session *s); /* have they of late? */

#endif
/* core/session/door.h */
/* SPDX-License-Identifier: MIT */
/*
 * door.h - how many readers receive on the device at once.
 *
 * The kernel wakes the reader that has waited longest. So those that a crew has beyond its base, for handlers that wait,
 * take part in the work while none does: they take time from each other, and most where handlers exclude each other (14
 * of Python's did 0.4 of the calls that two do). Yet one must be there at once when a handler waits. So while most
 * handlers return at once a crew has as many seats as members that it keeps when all is quiet, and who has none waits at
 * the door. One of those looks from time to time whether somebody with a seat is still in the handler of the last look,
 * while another request waits: then that one's seat is free. Where many handlers wait the door is open, and all receive.
 */
#ifndef MF_DOOR_H
#define MF_DOOR_H


struct mf_session;
struct mf__crew;
struct mf__reader;

struct mf__door {
    _Atomic bool shut; /* read for each request; the rest is not */
    bool used;         /* else it is open for good */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a seat is free, or it is open */
    uint32_t seated, waiting;
    bool watched;
    uint32_t vain_looks;
    _Atomic uint64_t blocked, opened; /* how often, all in all: a seat was left behind; it was opened */
    uint64_t blocked_then;            /* when the monitor looked */
    uint64_t left, served; /* seats that were left behind, of late, and requests of the crew when that began, */
    uint64_t counted_ns;   /* which was then */
    uint64_t since_ns;     /* when it was opened, or shut; */
    uint64_t open_ns;      /* for how long it stays open */
};

/* It is open: whoever has nothing to do receives. */
static inline bool mf__door_is_open(const struct mf__door *door)
{
    return door->used && !atomic_load_explicit(&door->shut, memory_order_relaxed);
}

void mf__door_init(struct mf__door *door);
void mf__door_destroy(struct mf__door *door);

/* On a reader's thread, which serves `c`, the device's: wait for a seat; or for the end, or until it is one too many. */
void mf__door_wait(struct mf__reader *r, const struct mf__crew *c);
/* The reader will not receive next. Its own thread. */
void mf__door_leave(struct mf__reader *r);
/* Whoever waits looks again whether he should. */
void mf__door_tell(struct mf_session *s);

/* The monitor's: */
/* Shut it again to see whether most handlers return at once now. Who then receives without a seat is called back. */
void mf__door_try(struct mf_session *s);
/* Nobody receives: let one in who waits, for one whose handler does. false: nobody waits. */
bool mf__door_admit(struct mf_session *s);
/* Who is asleep in one handler since the last tick (mf__reader.held) loses his seat: nobody else may be looking. */
void mf__door_unseat_held(struct mf_session *s);
/* Whoever is in one handler for long (mf__reader_stuck()) loses his seat, and with it his CPU, to the next one. */
void mf__door_free_stuck(struct mf_session *s);
/* How many more it takes so that somebody waits at the door, where seats were left behind of late. */
uint32_t mf__door_lacks(struct mf_session *s);

#endif

#define MF__MAX_READERS 256u
#define MF__DEFAULT_OUTSTANDING 256u
#define MF__MAX_OUTSTANDING 65536u
#define MF__DEFAULT_STOP_MS 10000u
#define MF__HANDSHAKE_MS 10000
#define MF__MIN_MINOR 31u      /* oldest protocol that is served */
#define MF__MINOR 45u          /* newest that is known */
#define MF__LATENCY_SAMPLE 17u /* a prime, or of operations that take turns some would never be timed */
#define MF__SLOW_NS 524288u
#define MF__LINGER_NS 10000u  /* after its answer: as long, the client shall not wait for a handler to return */
#define MF__SLOW_LIMIT 24u    /* one in so many: a follower that watches costs less than calling one each time */
#define MF__AUTO_READERS 64u  /* how many an automatic number may grow to */
#define MF__CREW_WINDOW 128u  /* milliseconds without need before a crew shrinks, at first */
#define MF__RING_DEPTH 64u    /* entries per queue; untouched ones cost 1 KiB */
#define MF__RING_BUDGET 4096u /* entries of all queues */

/* ---- requests ----------------------------------------------------------------------------------- */

#define MF__SLOT_ALIGN 1024u
#define MF__TOKENS 128u /* generations that a token tells apart: addresses within the slot, 8 bytes apart */

/* Ids, not flags, stored in this order: what a successor needs to know after this process was killed. */
struct mf__journal {
    _Atomic uint64_t started; /* a handler was entered with this request */
    _Atomic uint64_t done;    /* the handler has decided; stored before the answer goes out */
    _Atomic uint64_t laid;    /* the answer lies complete in the reply buffer */
    _Atomic uint64_t sent;    /* the kernel has taken it */
};

/* Who has let go of a slot. */
#define MF__LEFT_HANDLER 1u
#define MF__LEFT_ANSWERER 2u

/*
 * One request in hand. It belongs to the reader that received it, which reuses it when the handler has
 * returned and the answer is out. A token (struct mf_req *) is an address inside the slot that encodes the
 * slot's generation, so that a token kept too long is recognised instead of answering somebody else's
 * request.
 */
struct mf__slot {
    struct mf_call call;
    struct mf__io io;
    struct mf__reader *reader;
    const struct mf__opcode *row;
    struct mf_forget one;
    struct mf__journal journal;
    _Atomic uint64_t unique;      /* id in hand, 0 = none; INTERRUPT looks for it from other threads */
    _Atomic uint64_t interrupted; /* the id whose caller gave up: stale values hit nothing */
    _Atomic uint32_t state;       /* generation << 1 | open */
    _Atomic uint32_t left;        /* MF__LEFT_*: used only where an answer comes from outside the handler */
    uint32_t generation;          /* the reader's copy */
    bool kept;                    /* mf_req_defer(): written in the handler */
    bool inside;                  /* answered on the reader's thread within the handler */
    bool returned;                /* the handler has */
    bool sampled;                 /* of one that is timed: its latency counts */
    uint64_t received_ns;         /* 0 = not timed */
    uint64_t answered_ns;         /* of one that is timed */
    uint64_t dirents;             /* bytes of entries added to io.body */
    struct mf__slot *next;        /* free list, return stack */
};

struct mf__slab {
    struct mf__slab *next;
    struct mf__region slots_mem;
    struct mf__region buffers;
    uint32_t count;
};

/* ---- readers ------------------------------------------------------------------------------------ */

/*
 * Counters, written by one thread and read by any: relaxed atomics that compile to plain arithmetic. Errors and bytes are
 * counted by operation only: each opcode has its place, 0 those that are none.
 */
struct mf__counters {
    _Atomic uint64_t requests, replies;
    _Atomic uint64_t no_reply, wakeups, malformed, forgotten, interrupts;
    _Atomic uint64_t timed, slow; /* handlers that were timed; those that took longer than MF__SLOW_NS */
    struct {
        _Atomic uint64_t requests, errors, bytes_in, bytes_out;
    } ops[MF_STATS_OPS];
    _Atomic uint64_t latency[MF_STATS_BUCKETS];
};

enum mf__reader_state {
    MF__READER_NEW,
    MF__READER_WAITING, /* for a seat: door.h */
    MF__READER_RECEIVING,
    MF__READER_BUSY,
    MF__READER_PARKED,
    MF__READER_ENDED
};

/* Of a thread, in /proc; the monitor's own. */
enum mf__task_file { MF__TASK_STAT, MF__TASK_SCHEDSTAT, MF__TASK_CHILDREN, MF__TASK_FILES };

struct mf__task_files {
    uint32_t tid;
    int fd[MF__TASK_FILES]; /* -1: not open */
};

struct mf__reader {
    struct mf_session *session;
    struct mf__channel *ch;            /* its own endpoint of the device */
    struct mf__channel *_Atomic rx;    /* where it receives now: ch, or the ring of its crew */
    struct mf__crew *_Atomic crew;     /* NULL = parked */
    struct mf__own_ring *_Atomic own;  /* of that crew's ring, or NULL; the reader's own thread changes it */
    bool no_own;                       /* none could be made for it */
    int32_t cpu;                       /* where it is bound; -1 = anywhere */
    _Atomic int32_t home;              /* where it belongs by its crew, and by who else is there */
    struct mf__crew *settled;          /* for which crew it was placed, the reader's own; */
    int32_t settled_home;              /* where that was, */
    uint32_t settled_mode;             /* and in which of the session's MF__PLACE_* */
    uint32_t place_mode;               /* MF__PLACE_* that this thread has taken */
    _Atomic bool seated;               /* on the device, while the door is shut: door.h; */
    uint64_t seen_requests;            /* stats.requests at the last look from there */
    _Atomic bool spent;                /* in class SCHED_IDLE without the right to leave it */
    _Atomic bool freed;                /* by the monitor, from SCHED_IDLE and its CPU: see mf__free_reader() */
    uint64_t ran_ns, waited_ns, turns; /* the monitor's: schedstat at its last look */
    uint64_t looked_requests;          /* and stats.requests, */
    uint32_t same_looks;               /* looks in a row that found it in one handler; */
    uint64_t ticked_requests;          /* stats.requests at its last tick, */
    bool held;                         /* and whether it was asleep in one handler since the one before */
    _Atomic uint32_t caller; /* whose request it took, of those that are timed; 0: of none since the last look */
    uint32_t known_caller;   /* the monitor's: whom it looked at last, */
    bool near;               /* and whether he is in the scheduling group of this process */
    struct mf__task_files files;
    uint32_t index;
    int fd;                   /* of ch, also when that is closed: for the statistics */
    struct mf__slot *current; /* in a handler now; the reader's own thread only */
    struct mf__slot *claimed; /* being answered by this thread: somebody else's, or current; its own thread only */
    struct mf__slot *spare;   /* what the next receive may fill */
    struct mf__slot *free;
    struct mf__slab *_Atomic slabs;
    uint32_t slots;
    uint32_t sample;
    bool entered;    /* an upcall has returned, and its turn and hooks.leave are still to come; its own thread only */
    uint64_t sleeps; /* of its thread, when the handler that is timed began; */
    bool counts_sleeps;        /* if they are known */
    struct mf__counters stats; /* written by the reader's thread */
    /* Written by others; on lines of their own. */
    _Alignas(MF__CACHE_LINE) _Atomic(struct mf__slot *) returned; /* slots that answerers gave back */
    _Atomic uint32_t starving;                                    /* the reader waits for one of them */
    struct mf__counters *foreign; /* what answerers outside the reader's handlers count */
    _Alignas(MF__CACHE_LINE) _Atomic uint32_t state;
    _Atomic uint32_t tid;
    pthread_t thread;
    bool joinable;
};

/* ---- sessions ----------------------------------------------------------------------------------- */

/* How readers are scheduled: see placement.c. */
enum mf__place_mode { MF__PLACE_NONE, MF__PLACE_PLAIN, MF__PLACE_YIELDING, MF__PLACE_APART };

enum mf__phase { MF__NEW, MF__READY, MF__RUNNING, MF__OVER };

struct mf_session {
    /* Fixed before the first request. */
    int32_t (*upcall)(struct mf_call *call, void *user);
    void *user; /* for upcall */
    uint64_t implemented;
    /* Changed seldom, read for each request: beside what else is. */
    _Atomic uint32_t stop; /* 1: readers leave */
    _Atomic uint32_t monitor_asleep;
    _Atomic uint32_t place_mode;            /* MF__PLACE_* */
    _Atomic bool serialize;                 /* one handler at a time, under `serial`: one reader was asked for */
    _Atomic uint8_t slowness[MF_STATS_OPS]; /* of handlers that were timed: MF__SLOW_LIMIT up, or 1 down */
    _Atomic uint8_t lingers[MF_STATS_OPS];  /* likewise, of how long they went on after they had answered */
    _Atomic uint8_t overlong[MF_STATS_OPS]; /* so many more that are timed are asked whether they slept */
    _Atomic bool prompt[MF_STATS_OPS];      /* they return at once, and as soon as they have answered */
    bool takes_turns;                       /* MF_UPCALL_EXCLUSIVE, more readers than one, and CPUs to spin on */
    struct mf_upcall_ops hooks;             /* reader_start, reader_end, destroy, interrupted */
    void *hooks_user;
    struct mf_ops typed;
    struct mf_session_opts opts;
    struct mf__log log;
    struct mf_negotiated terms; /* immutable once the handshake is done */
    struct mf__mount_opts mount_opts;
    char *mount_text, *fsname, *subtype;

    pthread_mutex_t lock; /* phase, readers being added, mount */
    pthread_cond_t changed;
    _Atomic enum mf__phase phase;
    struct mf__mount mount;
    _Atomic bool mounted;
    bool unmounted;             /* by this session: nobody new comes to it */
    pthread_mutex_t unmounting; /* who unmounts; the others wait for him, who has a limit */
    bool destroyed;
    _Atomic bool abandoned; /* a handler never came back: the memory that it uses is not freed */
    bool signals_on;
    pid_t pid; /* a forked child must not tear down its parent's mount */
    struct mf__reader *readers[MF__MAX_READERS];
    _Atomic uint32_t reader_count;
    struct mf__channel *channels[MF__MAX_READERS];
    uint32_t channel_count;
    uint32_t channels_had; /* the count while it ran */
    /* Who serves what: made at the start, the crews' members change. */
    struct mf__crew *crews;
    uint32_t crew_count;
    bool may_grow;         /* else there is nothing to watch, but on rings */
    uint32_t one_per_cpu;  /* readers, as many as there are CPUs, or as were asked for */
    uint32_t reader_limit; /* the monitor makes no more readers than this */
    struct mf__channel **rings;
    uint32_t ring_count;
    uint32_t ring_queues;
#if defined(__linux__) && !defined(MF_NO_LINUX)
    cpu_set_t allowed; /* where the process might run when the session started */
#endif
    bool rings_shut;
    uint32_t holders; /* cancelled threads that stay for the entries that they armed */
    pthread_mutex_t serial;
    _Alignas(MF__CACHE_LINE) _Atomic uint32_t turn; /* reader + 1 */
    _Atomic uint32_t turn_pass, turn_passes; /* requests that need not wait for their turn; so many the last time */
    char turn_line[MF__CACHE_LINE - 3 * sizeof(uint32_t)];
    struct mf__door door; /* of crews[0] */
    pthread_t monitor;
    bool monitor_on;
    pthread_mutex_t monitor_lock;
    pthread_cond_t monitor_cond;
    _Atomic uint32_t monitor_end;
    _Atomic uint64_t growths, shrinks;
    struct {
        int group_nice; /* of the autogroup before it was touched */
        int nice_now;
        bool on_device;       /* no rings: readers of the device are placed */
        bool catches_up;      /* the group has more weight than before it yielded, until no reader starves */
        bool watchful;        /* the monitor runs whatever the group's nice value is */
        _Atomic bool one_way; /* threads have no right to leave SCHED_IDLE: others take turns with them */
        uint64_t since_ns, hold_ns;
        uint64_t looked_ns, late_ns;         /* the last look; how long the monitor itself was kept waiting since */
        uint64_t requests, bytes, foreign;   /* of all readers at the last look */
        uint64_t behind;                     /* of all rings then */
        uint32_t long_looks;                 /* in a row at which others kept readers waiting */
        uint64_t window_ns, ran_ns, idle_ns; /* since when idle time is looked at; readers ran since; at its start */
        uint64_t window_turns;               /* of the readers since */
        uint32_t apart_looks;                /* in a row at which readers had better run apart */
        bool first_look;                     /* after a pause */
        bool lively;                         /* requests come: the monitor does not sleep */
        bool crowded, idle_cpu;
        bool full;            /* CPUs are idle for less than a third of their time */
        bool woken;           /* of late handlers waited, or other threads gave answers */
        bool clients_compute; /* more than half as much as readers */
        bool apart_proved;    /* the last stream was rightly served apart from its client */
        bool given_up;        /* an heir cannot be freed: inherit.c */
        uint64_t threads;     /* of the process, when heirs were looked for among them */
        uint32_t sweep;
    } place;

    _Atomic uint32_t ending;  /* 1: somebody shall call mf_session_finish() */
    _Atomic uint32_t alive;   /* reader threads that have not ended */
    _Atomic int result;       /* first error that ended it */
    _Atomic int last_failure; /* of a reader that left: why, if it was the last one */
    int event[2];             /* pipe, readable for ever once the session is ending */
    uint32_t clone_error;
    _Atomic uint32_t failed_readers;
    char clone_reason[128];
    char transport_reason[128];
    _Atomic uint64_t log_budget; /* second << 32 | lines in it: malformed messages cannot flood the log */
    struct mf_session *next;     /* the registry */
};

/* The reader that this thread is, or NULL. */
extern _Thread_local struct mf__reader *mf__self;

/* slot.c */
int mf__reader_new(struct mf_session *s, struct mf__channel *ch, struct mf__reader **out);
void mf__reader_free(struct mf__reader *r);
struct mf__slot *mf__slot_take(struct mf__reader *r); /* NULL: the session stops, or there is no memory */
void mf__slot_open(struct mf__slot *slot);
void mf__slot_recycle(struct mf__slot *slot);   /* the reader's thread */
void mf__slot_give_back(struct mf__slot *slot); /* any other thread */
struct mf_req *mf__slot_token(struct mf__slot *slot);
struct mf__slot *mf__token_slot(struct mf_req *req);
/* Take the right to answer: 0, or -EALREADY. */
int mf__token_claim(struct mf_req *req);
bool mf__token_is_open(struct mf_req *req);
/* Call fn for every slot of a session until it returns nonzero; returns that. Any thread. */
int mf__slots_each(struct mf_session *s, int (*fn)(struct mf__slot *slot, void *arg), void *arg);

/* negotiate.c */
int mf__handshake(struct mf_session *s, struct mf_error *err);
int mf__terms_check(const struct mf_negotiated *neg, struct mf_error *err);

/* channels.c */
int mf__channels_add(struct mf_session *s, struct mf__channel *ch);
int mf__channels_clone(struct mf_session *s, uint32_t readers, struct mf_error *err);
int mf__readers_make(struct mf_session *s, uint32_t count);
/* One more, parked; the caller holds the lock and spawns it. */
int mf__reader_add(struct mf_session *s, bool own_channel, struct mf__reader **out);
uint32_t mf__reader_target(const struct mf_session *s);
void mf__channels_close(struct mf_session *s);
/* Decide whether requests come over rings and make them; sets transport and its reason. */
int mf__transport_choose(struct mf_session *s, uint64_t offered, struct mf_error *err);
void mf__rings_drain(struct mf_session *s); /* the connection has ended: until all entries are back, or for a while */
void mf__rings_shut(struct mf_session *s);

/* reader.c */
int mf__reader_spawn(struct mf__reader *r);
void mf__alive_drop(struct mf_session *s); /* the last one ends the session */
/* A thread of the engine's own: no signals, a name. */
int mf__helper_thread(pthread_t *out, const char *name, void *(*fn)(void *), void *arg);
void mf__reader_run(struct mf__reader *r); /* on the calling thread */

/* tasks.c: what the system says of readers' threads; for the monitor's thread alone, unless it says otherwise. */
bool mf__task_sleeps(struct mf__reader *r); /* rather than runs or waits for a CPU; or it is gone */
uint64_t mf__task_ran_ns(const struct mf__reader *r);
/* ns that it ran, ns that it waited to run, how often it got to run. 0 or -errno. */
int mf__task_schedstat(struct mf__reader *r, uint64_t at[3]);
/* Process ids of its children, each followed by a space; "" if there are none. 0 or -errno. */
int mf__task_children(struct mf__reader *r, char *text, size_t room);
uint64_t mf__thread_sleeps(void);            /* of the calling thread: how often it gave up its CPU to wait */
void mf__tasks_forget(struct mf_session *s); /* once there is no monitor */
int mf__read_text(const char *path, char *text, size_t room);
/* Decimal numbers between white space, up to `count`; how many there were. */
uint32_t mf__read_numbers(const char *text, uint64_t *out, uint32_t count);

/* placement.c */
void mf__placement_start(struct mf_session *s);
void mf__placement_look(struct mf_session *s, uint64_t now_ns, uint64_t late_ns); /* the monitor's thread, each tick */
/* No reader that yields is kept from a CPU: it could not wake the monitor. */
bool mf__placement_may_sleep(struct mf_session *s);
void mf__placement_resume(struct mf_session *s); /* it slept: what went before says nothing about now */
/* Do readers of the device yield to clients, on a CPU each? */
bool mf__placement_of_device(const struct mf_session *s);
/* The members of a crew that has a home are bound to no CPU for now. */
static inline bool mf__placement_unbound(struct mf_session *s, const struct mf__crew *c)
{
    uint32_t mode = atomic_load_explicit(&s->place_mode, memory_order_relaxed);

    return c->ring ? mode == MF__PLACE_APART : s->place.on_device && mode != MF__PLACE_YIELDING;
}
void mf__placement_stop(struct mf_session *s);
void mf__placement_describe(struct mf_session *s, char *text, size_t room);
/* On a reader's thread: do as the session has decided. false: another must take its place. */
bool mf__placement_apply(struct mf__reader *r, const struct mf__crew *c);
/* May this reader, which is parked, serve as the session has decided? */
bool mf__placement_fits(const struct mf__reader *r, const struct mf__crew *c);
/* The same thread is about to answer this request of its own. true: as an ordinary one, until mf__placement_step_back(). */
bool mf__placement_step_up(struct mf__reader *r, const struct mf__slot *slot);
void mf__placement_step_back(struct mf__reader *r);

/* inherit.c */
void mf__free_heirs(struct mf_session *s);     /* the monitor, at each look while readers yield */
bool mf__may_have_heirs(struct mf__reader *r); /* which it has not looked for yet */
/* In one handler for more than two looks: for this long it is no help to anybody. The monitor, while readers yield. */
bool mf__reader_stuck(struct mf__reader *r);
void mf__free_reader(struct mf__reader *r); /* the monitor: it is a thread like any other until it looks again */
void mf__take_back(struct mf__reader *r);   /* a reader, as it looks: it may be bound to nothing any more */

/* dispatch.c */
void mf__dispatch(struct mf__reader *r, struct mf__slot *slot);
/* Before the reader's thread, the calling one, waits or lets others run. */
void mf__leave_language(struct mf__reader *r);

/* typed.c */
int32_t mf__typed_upcall(struct mf_call *call, void *user);
uint64_t mf__typed_mask(const struct mf_ops *ops);

/* reply.c: the callers have claimed the request. */
int mf__send(struct mf__slot *slot, int error, const struct iovec *iov, int n);
int mf__send_error(struct mf__slot *slot, int error);
int mf__send_body(struct mf__slot *slot, size_t length);
int mf__send_data(struct mf__slot *slot, const void *data, uint64_t length);
int mf__send_fd(struct mf__slot *slot, int fd, uint64_t offset, uint64_t length);
int mf__send_written(struct mf__slot *slot, uint64_t value);
int mf__send_entry(struct mf__slot *slot, const struct mf_entry *entry, const struct mf_open *open);
int mf__send_answer(struct mf__slot *slot);             /* what call.answer holds, by the operation's kind */
int mf__refuse(struct mf__slot *slot, const char *why); /* EIO, logged; -EINVAL */

/* interrupt.c */
void mf__interrupt(struct mf__reader *r, struct mf__slot *slot);

/* stop.c */
void mf__stop_request(struct mf_session *s, int result); /* async-signal-safe */
int mf__end_service(struct mf_session *s);               /* unmount, then let the readers go; -ETIMEDOUT: by force */
void mf__release_kept(struct mf_session *s);
int mf__unmount_own(struct mf_session *s);

/* attach.c */
int mf__attach_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err);
int mf__attach_channels(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err);

/* signals.c */
int mf__kick_install(void); /* the signal's number */
void mf__kick(struct mf__reader *r);
int mf__signals_on(struct mf_session *s);
void mf__signals_off(struct mf_session *s);

/* registry.c: all sessions of the process, for interrupts and forks. */
int mf__registry_add(struct mf_session *s);
void mf__registry_remove(struct mf_session *s);
/* Call fn for each session on this connection (0: only `self`). */
int mf__registry_each(struct mf_session *self, int (*fn)(struct mf_session *s, void *arg), void *arg);

/* Does it wait on a ring of its own, or will, where it is no help to its crew? */
static inline bool mf__reader_apart(struct mf__reader *r)
{
    struct mf__own_ring *own = atomic_load_explicit(&r->own, memory_order_acquire);

    return own && mf__own_ring_holds(own);
}

/* Is this thread a reader of any session of the process? */
bool mf__registry_has_reader(uint32_t tid);

/* stats.c */
uint64_t mf__now_ns(void);
void mf__count_request(struct mf__reader *r, struct mf__slot *slot);
void mf__count_handler(struct mf__reader *r, const struct mf__slot *slot); /* it has returned */
/* What no handler of the filesystem's answers does not wait. */
void mf__judge_unhandled(struct mf_session *s);
/* Has one in MF__SLOW_LIMIT handlers of this opcode, or more, been slow of late, or is that not known? */
bool mf__op_may_wait(const struct mf_session *s, uint32_t opcode);
void mf__count_reply(struct mf__slot *slot, int error, size_t bytes);
uint64_t mf__reader_bytes(const struct mf__reader *r); /* of requests, and of answers that it gave itself */

/* log lines about single messages: at most some per second */
__attribute__((format(printf, 3, 4))) void mf__log_limited(struct mf_session *s, uint32_t level, const char *fmt, ...);

#endif

const struct mf_call *mf_req_call(struct mf_req *req)
{
    return &mf__token_slot(req)->call;
}

struct mf_session *mf_req_session(struct mf_req *req)
{
    return mf__token_slot(req)->reader->session;
}

int mf_req_defer(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (!mf__token_is_open(req))
        return -EALREADY;
    if (slot->row->reply == MF__REPLY_NEVER)
        return -EINVAL;
    if (!slot->kept) {
        /* The descriptor must live until the answer is out: the kernel takes it nowhere else. */
        mf__channel_get(slot->io.ch);
        slot->kept = true;
    }
    return 0;
}

int mf_req_interrupted(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (!mf__token_is_open(req))
        return -EALREADY;
    return atomic_load(&slot->interrupted) == slot->io.msg.hdr.unique;
}

void *mf_req_buffer(struct mf_req *req, uint64_t *length)
{
    struct mf__slot *slot = mf__token_slot(req);
    bool has = slot->row->reply == MF__REPLY_DATA || slot->row->reply == MF__REPLY_XATTR;

    if (!mf__token_is_open(req) || !has) {
        *length = 0;
        return NULL;
    }
    *length = slot->io.body_size < slot->call.length ? slot->io.body_size : slot->call.length;
    if (slot->call.op == MF_OP_READLINK)
        *length = MF__PAGE - 1;
    return slot->io.body;
}

/* Claim the request for an answer: the slot, or NULL with the error in *rc. */
static struct mf__slot *claim(struct mf_req *req, int *rc)
{
    struct mf__slot *slot = mf__token_slot(req);

    if (slot->row && slot->row->reply == MF__REPLY_NEVER) {
        *rc = -EINVAL;
        return NULL;
    }
    *rc = mf__token_claim(req);
    return *rc < 0 ? NULL : slot;
}

/* As claim(), for answers of one kind: another kind is refused, and the caller gets EIO. */
static struct mf__slot *claim_kind(struct mf_req *req, uint8_t kind, int *rc)
{
    struct mf__slot *slot = claim(req, rc);

    if (slot && slot->row->reply != kind) {
        *rc = mf__refuse(slot, "an answer of another kind than the operation's");
        return NULL;
    }
    return slot;
}

static bool answers_with_nothing(const struct mf__slot *slot)
{
    return slot->row->reply == MF__REPLY_EMPTY || slot->row->reply == MF__REPLY_DATA;
}

int mf_reply_err(struct mf_req *req, int error)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (error < 0 || error >= 512)
        return mf__refuse(slot, "an error that is no positive errno below 512");
    if (error == 0 && !answers_with_nothing(slot))
        return mf__refuse(slot, "success without the body that the operation's answer has");
    return mf__send_error(slot, -error);
}

/* The caller's structure itself where it is of our version, else a copy that is; NULL where that cannot be. */
static const struct mf_entry *known_entry(const struct mf_entry *entry, struct mf_entry *copy)
{
    if (entry->size == sizeof(*entry))
        return entry;
    return mf__copy_sized(copy, sizeof(*copy), entry, sizeof(uint32_t)) < 0 ? NULL : copy;
}

int mf_reply_entry(struct mf_req *req, const struct mf_entry *entry)
{
    struct mf_entry copy;
    const struct mf_entry *e = known_entry(entry, &copy);
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (!e)
        return mf__refuse(slot, "a struct mf_entry without its size, or a newer one");
    return mf__send_entry(slot, e, NULL);
}

int mf_reply_create(struct mf_req *req, const struct mf_entry *entry, const struct mf_open *open)
{
    struct mf_entry copy;
    const struct mf_entry *e = known_entry(entry, &copy);
    struct mf_open o;
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    if (!slot)
        return rc;
    if (!e || mf__copy_sized(&o, sizeof(o), open, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_entry or mf_open without its size, or a newer one");
    return mf__send_entry(slot, e, &o);
}

int mf_reply_attr(struct mf_req *req, const struct mf_attr *attr, uint64_t timeout_ns)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_ATTR, &rc);

    if (!slot)
        return rc;
    if (mf__check_attr(attr) < 0)
        return mf__refuse(slot, "attributes whose type, size or times are impossible");
    return mf__send_body(slot, mf__put_attr(slot->io.body, timeout_ns, slot->call.node, attr));
}

int mf_reply_open(struct mf_req *req, const struct mf_open *open)
{
    struct mf_open o;
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_OPEN, &rc);

    if (!slot)
        return rc;
    if (mf__copy_sized(&o, sizeof(o), open, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_open without its size, or a newer one");
    return mf__send_body(slot, mf__put_open(slot->io.body, o.fh, o.flags, o.backing_id));
}

int mf_reply_data(struct mf_req *req, const void *data, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_data(slot, data, length) : rc;
}

int mf_reply_buffer(struct mf_req *req, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_data(slot, slot->io.body, length) : rc;
}

int mf_reply_fd(struct mf_req *req, int fd, uint64_t offset, uint64_t length)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_fd(slot, fd, offset, length) : rc;
}

int mf_reply_write(struct mf_req *req, uint64_t written)
{
    int rc;
    struct mf__slot *slot = claim(req, &rc);

    return slot ? mf__send_written(slot, written) : rc;
}

int mf_reply_statfs(struct mf_req *req, const struct mf_statfs *st)
{
    struct mf_statfs copy;
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_STATFS, &rc);

    if (!slot)
        return rc;
    if (mf__copy_sized(&copy, sizeof(copy), st, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "a struct mf_statfs without its size, or a newer one");
    return mf__send_body(slot, mf__put_statfs(slot->io.body, &copy));
}

int mf_reply_xattr_size(struct mf_req *req, uint64_t needed)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_XATTR, &rc);

    if (!slot)
        return rc;
    if (slot->call.length)
        return mf__refuse(slot, "a size where the value itself was asked for");
    return mf__send_body(slot, mf__put_xattr_size(slot->io.body, needed > UINT32_MAX ? UINT32_MAX : (uint32_t)needed));
}

int mf_reply_lseek(struct mf_req *req, uint64_t offset)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_LSEEK, &rc);

    return slot ? mf__send_body(slot, mf__put_lseek(slot->io.body, offset)) : rc;
}

int mf_reply_lock(struct mf_req *req, const struct mf_lock *lock)
{
    int rc;
    struct mf__slot *slot = claim_kind(req, MF__REPLY_LK, &rc);

    return slot ? mf__send_body(slot, mf__put_lk(slot->io.body, lock)) : rc;
}

/* ---- directories --------------------------------------------------------------------------------- */

int64_t mf_dirent_put(void *buf, uint64_t size, uint64_t used, const char *name, uint64_t name_len, uint64_t ino,
                      uint32_t type, uint64_t next)
{
    if (used > size)
        return -EINVAL;
    return mf__put_dirent((uint8_t *)buf + used, size - used, name, name_len, ino, type, next);
}

int mf_dirent_add(struct mf_req *req, const char *name, uint64_t name_len, uint64_t ino, uint32_t type, uint64_t next)
{
    struct mf__slot *slot = mf__token_slot(req);
    uint64_t room;
    void *buf = mf_req_buffer(req, &room);
    int64_t n;

    if (!buf || slot->call.op != MF_OP_READDIR)
        return -EINVAL;
    n = mf_dirent_put(buf, room, slot->dirents, name, name_len, ino, type, next);
    if (n < 0)
        return (int)n;
    slot->dirents += (uint64_t)n;
    return 0;
}

int mf_reply_dirents(struct mf_req *req)
{
    return mf_reply_buffer(req, mf__token_slot(req)->dirents);
}

/* ==== core/api/session.c ==== */
/* SPDX-License-Identifier: MIT */
/* session.c - the exported calls on sessions: making, connecting, running, ending. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>


const char *mf_version(void)
{
    return MF_VERSION_STRING;
}

const char *mf_op_name(uint32_t opcode)
{
    const struct mf__opcode *row = mf__opcode(opcode);

    return row->known ? row->name : NULL;
}

void mf_session_opts_init(struct mf_session_opts *opts, uint32_t size)
{
    memset(opts, 0, size);
    opts->size = size;
}

/* ---- options ------------------------------------------------------------------------------------- */

static int check_numbers(const struct mf_session_opts *o, struct mf_error *err)
{
    if (o->readers > MF__MAX_READERS)
        return mf__errorf(err, -EINVAL, "readers is %u: 0 (automatic) to %u are possible", o->readers, MF__MAX_READERS);
    if (o->clone_fd > MF_CLONE_REQUIRE || o->uring > MF_URING_REQUIRE || o->acl > MF_ACL_ALL)
        return mf__errorf(err, -EINVAL, "clone_fd %u, uring %u, acl %u: each goes from 0 to 2", o->clone_fd, o->uring,
                          o->acl);
    if (o->max_write && (o->max_write < MF__PAGE || o->max_write > 256 * MF__PAGE || o->max_write % MF__PAGE))
        return mf__errorf(err, -EINVAL, "max_write is %u: whole pages of 4096 bytes, 1 to 256 of them", o->max_write);
    if (o->placement > MF_PLACEMENT_FREE)
        return mf__errorf(err, -EINVAL, "placement is %u: auto 0, pinned 1, free 2", o->placement);
    if (o->time_gran > 1000000000u)
        return mf__errorf(err, -EINVAL, "time_gran is %u ns: at most 1,000,000,000", o->time_gran);
    if (o->max_outstanding > MF__MAX_OUTSTANDING || (o->max_outstanding && o->max_outstanding < 4))
        return mf__errorf(err, -EINVAL, "max_outstanding is %u: 4 to %u", o->max_outstanding, MF__MAX_OUTSTANDING);
    if ((o->flags & MF_OPT_INLINE) && o->readers != 1)
        return mf__errorf(err, -EINVAL, "MF_OPT_INLINE goes with readers = 1");
    if (o->uring == MF_URING_REQUIRE && (o->clone_fd == MF_CLONE_REQUIRE || (o->flags & MF_OPT_INLINE)))
        return mf__errorf(
            err, -EINVAL,
            "uring = require excludes clone_fd = require and MF_OPT_INLINE: rings have their own threads");
    return 0;
}

static int copy_text(const char *text, char **out)
{
    *out = text ? strdup(text) : NULL;
    return text && !*out ? -ENOMEM : 0;
}

static int copy_texts(struct mf_session *s, struct mf_error *err)
{
    int rc = copy_text(s->opts.mount_options, &s->mount_text);

    if (rc == 0)
        rc = copy_text(s->opts.fsname, &s->fsname);
    if (rc == 0)
        rc = copy_text(s->opts.subtype, &s->subtype);
    s->opts.mount_options = s->mount_text;
    s->opts.fsname = s->fsname;
    s->opts.subtype = s->subtype;
    return rc < 0 ? mf__errorf(err, rc, "no memory for the options") : 0;
}

static int fit(char *dst, size_t room, const char *text, const char *what, struct mf_error *err)
{
    if (strlen(text) >= room)
        return mf__errorf(err, -EINVAL, "%s is longer than %zu bytes", what, room - 1);
    memcpy(dst, text, strlen(text) + 1);
    return 0;
}

static int settle_mount_opts(struct mf_session *s, struct mf_error *err)
{
    struct mf__mount_opts *m = &s->mount_opts;
    int rc = mf__mount_opts_parse(s->opts.mount_options, m, err);

    if (rc == 0 && !m->fsname[0])
        rc = fit(m->fsname, sizeof(m->fsname), s->opts.fsname ? s->opts.fsname : "manifuse", "fsname", err);
    if (rc == 0 && !m->subtype[0] && s->opts.subtype)
        rc = fit(m->subtype, sizeof(m->subtype), s->opts.subtype, "subtype", err);
    if (rc < 0)
        return rc;
    if (s->opts.acl == MF_ACL_OWNER && m->allow_other)
        s->opts.acl = MF_ACL_ALL;
    else if (s->opts.acl == MF_ACL_OWNER && m->allow_root)
        s->opts.acl = MF_ACL_ROOT_AND_OWNER;
    if (s->opts.acl != MF_ACL_OWNER)
        m->allow_other = true;
    return 0;
}

static int settle_opts(struct mf_session *s, const struct mf_session_opts *opts, struct mf_error *err)
{
    struct mf_session_opts *o = &s->opts;
    int rc = opts ? mf__copy_sized(o, sizeof(*o), opts, sizeof(uint32_t)) : 0;

    if (rc < 0)
        return mf__errorf(
            err, rc, "struct mf_session_opts has a size of %u bytes or fields that this library (%s) does not know",
            opts->size, MF_VERSION_STRING);
    s->log = (struct mf__log){ .sink = o->log, .user = o->log_user, .max_level = MF_LOG_WARNING };
    if (o->log)
        s->log.max_level = MF_LOG_INFO;
    if (o->flags & MF_OPT_DEBUG)
        s->log.max_level = MF_LOG_DEBUG;
    rc = check_numbers(o, err);
    if (rc == 0)
        rc = copy_texts(s, err);
    if (rc == 0)
        rc = settle_mount_opts(s, err);
    if (o->max_write == 0)
        o->max_write = 256 * MF__PAGE;
    if (o->max_outstanding == 0)
        o->max_outstanding = MF__DEFAULT_OUTSTANDING;
    if (o->stop_timeout_ms == 0)
        o->stop_timeout_ms = MF__DEFAULT_STOP_MS;
    return rc;
}

/* ---- making and freeing -------------------------------------------------------------------------- */

static void session_free(struct mf_session *s)
{
    if (s->event[0] >= 0) {
        close(s->event[0]);
        close(s->event[1]);
    }
    mf__crews_free(s);
    free(s->rings);
    mf__door_destroy(&s->door);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->monitor_cond);
    pthread_mutex_destroy(&s->monitor_lock);
    pthread_mutex_destroy(&s->serial);
    pthread_mutex_destroy(&s->unmounting);
    pthread_mutex_destroy(&s->lock);
    free(s->mount_text);
    free(s->fsname);
    free(s->subtype);
    free(s);
}

static void api_session_init_locks(struct mf_session *s)
{
    pthread_mutex_init(&s->lock, NULL);
    mf__cond_init(&s->changed);
    pthread_mutex_init(&s->serial, NULL);
    pthread_mutex_init(&s->unmounting, NULL);
    pthread_mutex_init(&s->monitor_lock, NULL);
    pthread_cond_init(&s->monitor_cond, NULL);
    mf__door_init(&s->door);
}

static int session_alloc(const struct mf_session_opts *opts, struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s = NULL;
    int rc;

    *out = NULL;
    if (posix_memalign((void **)&s, MF__CACHE_LINE, sizeof(*s)) != 0)
        return mf__errorf(err, -ENOMEM, "no memory for a session");
    memset(s, 0, sizeof(*s));
    api_session_init_locks(s);
    s->pid = getpid();
    s->event[0] = s->event[1] = -1;
    s->mount.fd = s->mount.helper_sock = -1;
    if (pipe2(s->event, O_CLOEXEC | O_NONBLOCK) < 0) {
        rc = mf__errorf(err, -errno, "no descriptors left: %s", mf__strerror(errno));
        s->event[0] = -1;
    } else {
        rc = settle_opts(s, opts, err);
    }
    if (rc < 0) {
        session_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

int mf_session_new(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, struct mf_session **out,
                   struct mf_error *err)
{
    struct mf_session *s;
    int rc = session_alloc(opts, &s, err);

    *out = NULL;
    if (rc < 0)
        return rc;
    rc = mf__copy_sized(&s->typed, sizeof(s->typed), ops, sizeof(uint32_t));
    if (rc < 0) {
        session_free(s);
        return mf__errorf(err, rc,
                          "struct mf_ops has a size of %u bytes or operations that this library (%s) does not know",
                          ops->size, MF_VERSION_STRING);
    }
    s->upcall = mf__typed_upcall;
    s->user = user;
    s->hooks = (struct mf_upcall_ops){ .reader_start = s->typed.reader_start,
                                       .reader_end = s->typed.reader_end,
                                       .destroy = s->typed.destroy,
                                       .interrupted = s->typed.interrupted };
    s->hooks_user = user;
    s->implemented = mf__typed_mask(&s->typed);
    mf__registry_add(s);
    *out = s;
    return 0;
}

int mf_session_new_upcall(const struct mf_upcall_ops *ops, void *user, const struct mf_session_opts *opts,
                          struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = session_alloc(opts, &s, err);

    *out = NULL;
    if (rc < 0)
        return rc;
    rc = mf__copy_sized(&s->hooks, sizeof(s->hooks), ops, offsetof(struct mf_upcall_ops, reader_start));
    if (rc == 0 && !s->hooks.upcall)
        rc = -EINVAL;
    if (rc < 0) {
        session_free(s);
        return mf__errorf(err, rc, "struct mf_upcall_ops lacks its upcall, or is of another version");
    }
    s->upcall = s->hooks.upcall;
    s->user = s->hooks_user = user;
    s->implemented = s->hooks.implemented;
    mf__registry_add(s);
    *out = s;
    return 0;
}

static void call_destroy(struct mf_session *s)
{
    if (s->destroyed || s->abandoned)
        return;
    s->destroyed = true;
    if (s->hooks.destroy)
        s->hooks.destroy(s->hooks_user);
}

/*
 * In a child of fork() the descriptors are closed already, and the mount is the parent's. So are the threads: what they
 * hold or wait for would be waited for here.
 */
static void forget_parent(struct mf_session *s)
{
    api_session_init_locks(s);
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_forget(s->rings[i]);
    s->mounted = false;
    s->phase = MF__OVER;
    s->destroyed = true;
    s->channel_count = 0;
}

void mf_session_free(struct mf_session *s)
{
    if (!s)
        return;
    if (s->pid != getpid())
        forget_parent(s);
    if (s->phase == MF__RUNNING) {
        mf__stop_request(s, 0);
        mf_session_finish(s);
    }
    if (s->mounted)
        mf__unmount_own(s);
    mf__registry_remove(s);
    mf__mount_release(&s->mount);
    call_destroy(s);
    if (s->abandoned) /* a handler still uses this memory */
        return;
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__channel_put(s->rings[i]); /* it never ran */
    mf__channels_close(s);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__reader_free(s->readers[i]);
    session_free(s);
}

/* ---- connecting ---------------------------------------------------------------------------------- */

int mf_session_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err)
{
    int fd = mountpoint ? mf__mount_fd_path(mountpoint) : -1;
    int rc;

    if (!mountpoint || !*mountpoint)
        return mf__errorf(err, -EINVAL, "no mount point was given");
    if (fd >= 0)
        return mf_session_attach_fds(s, &fd, 1, err);
    if (s->phase != MF__NEW)
        return mf__errorf(err, -EBUSY, "the session has a connection already");
    rc = mf__attach_mount(s, mountpoint, err);
    if (rc == 0)
        s->phase = MF__READY;
    return rc;
}

int mf_negotiated_check(const struct mf_negotiated *neg, struct mf_error *err)
{
    return mf__terms_check(neg, err);
}

static int join_connection(struct mf_session *s, int fd, const struct mf_negotiated *neg, struct mf_error *err)
{
    int rc = mf__terms_check(neg, err);
    uint64_t claimed;

    if (rc < 0)
        return rc;
    mf__copy_sized(&s->terms, sizeof(s->terms), neg, offsetof(struct mf_negotiated, connection));
    rc = mf__attach_channels(s, &fd, 1, err);
    if (rc < 0)
        return rc;
    claimed = s->terms.connection; /* of the copy: an older library's terms end before it */
    s->terms.connection = mf__connection_number(fd);
    if (claimed && s->terms.connection && claimed != s->terms.connection)
        return mf__errorf(err, -EINVAL, "descriptor %d belongs to connection %llu, the terms to connection %llu", fd,
                          (unsigned long long)s->terms.connection, (unsigned long long)claimed);
    snprintf(s->transport_reason, sizeof(s->transport_reason), "%s",
             s->terms.transport == MF_TRANSPORT_URING
                 ? "the first session has the rings; this one reads what stays on the device: FORGET, INTERRUPT"
                 : "joined on a descriptor of the device");
    if (s->opts.readers == 0)
        s->opts.readers = 1; /* the caller decides how many by how many sessions it makes */
    rc = mf__channels_clone(s, s->opts.readers, err);
    if (rc == 0)
        s->phase = MF__READY;
    return rc;
}

static int joined(struct mf_session *s, int fd, const struct mf_negotiated *neg, struct mf_session **out,
                  struct mf_error *err)
{
    int rc = join_connection(s, fd, neg, err);

    if (rc == 0) {
        *out = s;
        return 0;
    }
    if (s->channel_count)
        s->channels[0]->fd = -1; /* the caller keeps it */
    s->destroyed = true;         /* and what `user` is */
    mf_session_free(s);
    return rc;
}

int mf_session_from_fd_initialized(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, int fd,
                                   const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = mf_session_new(ops, user, opts, &s, err);

    *out = NULL;
    return rc < 0 ? rc : joined(s, fd, neg, out, err);
}

int mf_session_from_fd_initialized_upcall(const struct mf_upcall_ops *ops, void *user,
                                          const struct mf_session_opts *opts, int fd, const struct mf_negotiated *neg,
                                          struct mf_session **out, struct mf_error *err)
{
    struct mf_session *s;
    int rc = mf_session_new_upcall(ops, user, opts, &s, err);

    *out = NULL;
    return rc < 0 ? rc : joined(s, fd, neg, out, err);
}

int mf_session_clone_fd(struct mf_session *s, int *fd)
{
    int rc = -ENOTCONN;

    pthread_mutex_lock(&s->lock);
    if (s->channel_count)
        rc = s->channels[0]->fd < 0 ? -ENOTSUP : mf__clone_fd(s->channels[0]->fd, fd);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mf_session_negotiated(struct mf_session *s, struct mf_negotiated *out, uint32_t size)
{
    struct mf_negotiated terms = s->terms;

    if (s->phase == MF__NEW)
        return -ENOTCONN;
    if (size < sizeof(uint32_t))
        return -EINVAL;
    terms.size = size < sizeof(terms) ? size : (uint32_t)sizeof(terms);
    memcpy(out, &terms, terms.size);
    return 0;
}

/* ---- running ------------------------------------------------------------------------------------- */

/* How many readers it begins with, or -errno. Who is added from now on has its thread from who adds it. */
static int enter_running(struct mf_session *s)
{
    int rc = 0;

    pthread_mutex_lock(&s->lock);
    if (s->phase == MF__RUNNING)
        rc = -EBUSY;
    else if (s->phase != MF__READY)
        rc = -ENOTCONN;
    else
        rc = mf__crews_make(s);
    if (rc == 0) {
        s->phase = MF__RUNNING;
        rc = (int)atomic_load(&s->reader_count);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int mf_session_start(struct mf_session *s)
{
    int readers = enter_running(s);
    int rc = 0;

    if (readers < 0)
        return readers;
    if ((s->opts.flags & MF_OPT_SIGNALS) && mf__signals_on(s) == 0)
        s->signals_on = true;
    atomic_fetch_add(&s->alive, 1); /* no reader is the last one while others are still to come */
    for (int i = 0; i < readers && rc == 0; i++)
        rc = mf__reader_spawn(s->readers[i]);
    if (rc < 0)
        mf__logf(&s->log, MF_LOG_ERROR, "cannot start all readers: %s", mf__strerror(-rc));
    if (rc < 0)
        atomic_store(&s->last_failure, rc); /* in case that none could be started */
    mf__alive_drop(s);
    if (!atomic_load(&s->ending) && mf__monitor_start(s) < 0)
        mf__logf(&s->log, MF_LOG_WARNING, "no thread for the monitor: the number of readers stays as it is");
    return 0;
}

int mf_session_wait(struct mf_session *s, int timeout_ms)
{
    struct pollfd p = { .fd = s->event[0], .events = POLLIN };
    int n = poll(&p, 1, timeout_ms);

    if (n < 0)
        return -errno;
    return n ? 0 : -ETIMEDOUT;
}

static void wait_uninterrupted(struct mf_session *s)
{
    while (mf_session_wait(s, -1) == -EINTR)
        continue;
}

static void join_readers(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (!r->joinable)
            continue;
        if (atomic_load(&r->state) == MF__READER_ENDED)
            pthread_join(r->thread, NULL);
        else
            pthread_detach(r->thread); /* left behind in its handler */
        r->joinable = false;
    }
}

static void release_channels(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__channel_put(s->readers[i]->ch);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->ring_count; i++) {
        mf__ring_counts(s->rings[i], &s->crews[1 + i].counts);
        mf__channel_put(s->rings[i]);
    }
    s->ring_count = 0;
    mf__channels_close(s);
    pthread_mutex_unlock(&s->lock);
}

static int close_down(struct mf_session *s, int forced)
{
    int rc = atomic_load(&s->result);

    join_readers(s);
    if (!s->abandoned) { /* else a handler may still answer: what it touches then must be there */
        mf__release_kept(s);
        release_channels(s);
    }
    if (s->signals_on)
        mf__signals_off(s);
    s->signals_on = false;
    s->phase = MF__OVER;
    mf__mount_release(&s->mount);
    call_destroy(s);
    return forced == -ETIMEDOUT ? forced : rc;
}

int mf_session_finish(struct mf_session *s)
{
    if (s->phase != MF__RUNNING)
        return -ENOTCONN;
    mf__stop_request(s, 0);
    return close_down(s, mf__end_service(s));
}

/* MF_OPT_INLINE: somebody must wake the reader, and abort for it, while it is in a read or a handler. */
struct supervisor {
    struct mf_session *s;
    int rc;
};

static void *supervise(void *arg)
{
    struct supervisor *v = arg;

    wait_uninterrupted(v->s);
    v->rc = mf__end_service(v->s);
    return NULL;
}

static int run_inline(struct mf_session *s)
{
    struct supervisor v = { .s = s };
    sigset_t kick;
    pthread_t thread;
    int rc = enter_running(s);

    if (rc < 0)
        return rc;
    if ((s->opts.flags & MF_OPT_SIGNALS) && mf__signals_on(s) == 0)
        s->signals_on = true;
    sigemptyset(&kick);
    sigaddset(&kick, mf__kick_install());
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    s->readers[0]->thread = pthread_self();
    atomic_store(&s->alive, 1);
    rc = -pthread_create(&thread, NULL, supervise, &v);
    if (rc < 0) {
        s->phase = MF__READY;
        return rc;
    }
    mf__reader_run(s->readers[0]);
    pthread_join(thread, NULL);
    return close_down(s, v.rc);
}

int mf_session_run(struct mf_session *s)
{
    int rc;

    if (s->opts.flags & MF_OPT_INLINE)
        return run_inline(s);
    rc = mf_session_start(s);
    if (rc < 0)
        return rc;
    wait_uninterrupted(s);
    return mf_session_finish(s);
}

/* Before the start it is enough to want one more. */
static int plan_reader(struct mf_session *s)
{
    uint32_t index = mf__reader_target(s);
    int rc;

    if (index == MF__MAX_READERS || (s->opts.flags & MF_OPT_INLINE))
        return s->opts.flags & MF_OPT_INLINE ? -EINVAL : -EMFILE;
    rc = mf__channels_clone(s, index + 1, NULL);
    if (rc < 0)
        return rc;
    s->opts.readers = index + 1;
    atomic_store(&s->serialize, false);
    return (int)index;
}

int mf_session_add_reader(struct mf_session *s)
{
    struct mf__reader *r = NULL;
    int rc = -ENOTCONN;

    pthread_mutex_lock(&s->lock);
    if (s->phase == MF__READY)
        rc = plan_reader(s);
    else if (s->phase == MF__RUNNING && !atomic_load(&s->ending))
        rc = mf__reader_add(s, s->ring_count == 0, &r);
    if (r) {
        atomic_fetch_add(&s->alive, 1); /* the session does not end between here and the thread's start */
        mf__crews_widen(s, r);
    }
    pthread_mutex_unlock(&s->lock);
    if (!r)
        return rc;
    rc = mf__reader_spawn(r);
    if (rc == 0)
        rc = (int)r->index;
    mf__alive_drop(s);
    return rc;
}

int mf_session_unmount(struct mf_session *s)
{
    return s->mounted ? mf__unmount_own(s) : -ENOTCONN;
}

/* ---- asking -------------------------------------------------------------------------------------- */

const char *mf_session_mountpoint(struct mf_session *s)
{
    return s->mount.path;
}

static uint32_t distinct_channels(const struct mf_session *s, uint32_t readers)
{
    uint32_t n = s->channels_had;

    return n < readers ? n : readers;
}

int mf_session_info(struct mf_session *s, struct mf_info *out)
{
    struct mf_info info = { .size = out->size };
    uint32_t room = out->size < sizeof(info) ? out->size : (uint32_t)sizeof(info);

    if (room < offsetof(struct mf_info, channels))
        return -EINVAL;
    pthread_mutex_lock(&s->lock);
    info.readers = atomic_load(&s->reader_count);
    if (!info.readers && s->phase == MF__READY)
        info.readers = mf__reader_target(s);
    info.channels = distinct_channels(s, info.readers);
    info.transport = s->terms.transport;
    info.clone_error = s->clone_error;
    info.failed_readers = atomic_load(&s->failed_readers);
    info.connection = s->terms.connection;
    memcpy(info.clone_reason, s->clone_reason, sizeof(info.clone_reason));
    memcpy(info.transport_reason, s->transport_reason, sizeof(info.transport_reason));
    info.growths = atomic_load(&s->growths);
    info.shrinks = atomic_load(&s->shrinks);
    mf__placement_describe(s, info.placement, sizeof(info.placement));
    pthread_mutex_unlock(&s->lock);
    memcpy(out, &info, room);
    return 0;
}

/* ==== core/base/alloc.c ==== */
/* SPDX-License-Identifier: MIT */
/* alloc.c - memory that the kernel writes to, and copies of structures that may grow. */
#include <sys/mman.h>


#ifdef MAP_NORESERVE
#define UNTOUCHED_IS_FREE MAP_NORESERVE
#else
#define UNTOUCHED_IS_FREE 0
#endif

int mf__region_new(struct mf__region *out, size_t size)
{
    long page = sysconf(_SC_PAGESIZE);
    uint64_t unit = page > 0 ? (uint64_t)page : MF__PAGE;
    void *base;

    out->base = NULL;
    out->size = 0;
    if (!size || size > SIZE_MAX - unit)
        return -EINVAL;
    size = (size_t)mf__round_up(size, unit);
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | UNTOUCHED_IS_FREE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
#ifdef MADV_NOHUGEPAGE
    /* One touched byte would else cost 2 MiB; that the advice is refused (no THP at all) is as good. */
    (void)madvise(base, size, MADV_NOHUGEPAGE);
#endif
    out->base = base;
    out->size = size;
    return 0;
}

void mf__region_free(struct mf__region *region)
{
    if (region->base)
        munmap(region->base, region->size);
    region->base = NULL;
    region->size = 0;
}

int mf__copy_sized(void *dst, size_t dst_size, const void *src, size_t least)
{
    const uint8_t *from = src;
    uint32_t size, known = (uint32_t)dst_size;

    memcpy(&size, from, sizeof(size));
    if (size < least || size < sizeof(size))
        return -EINVAL;
    for (size_t i = dst_size; i < size; i++)
        if (from[i])
            return -E2BIG;
    if (size < dst_size)
        memset(dst, 0, dst_size);
    memcpy(dst, from, size < dst_size ? size : dst_size);
    /* The copy is of our version, whatever the original was. */
    memcpy(dst, &known, sizeof(known));
    return 0;
}
#undef UNTOUCHED_IS_FREE

/* ==== core/base/error.c ==== */
/* SPDX-License-Identifier: MIT */
/* error.c - what went wrong, in words. */


/* The structure has never been smaller, so that a caller who forgot `size` still gets his text. */
#define ERROR_SIZE_0_1 512u

_Static_assert(sizeof(struct mf_error) >= ERROR_SIZE_0_1, "struct mf_error only grows");

int mf__errorf(struct mf_error *err, int code, const char *fmt, ...)
{
    size_t size, room;
    va_list ap;

    if (!err)
        return code;
    size = err->size ? err->size : ERROR_SIZE_0_1;
    if (size > sizeof(*err))
        size = sizeof(*err);
    if (size < offsetof(struct mf_error, text))
        return code;
    err->code = code;
    room = size - offsetof(struct mf_error, text);
    if (!room)
        return code;
    va_start(ap, fmt);
    if (vsnprintf(err->text, room, fmt, ap) < 0)
        err->text[0] = '\0';
    va_end(ap);
    return code;
}

/* On its own line: other C libraries lack the macro, and then the whole condition would not parse. */
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 32)
#define HAVE_STRERRORDESC 1
#endif
#endif

#ifdef HAVE_STRERRORDESC
static const char *describe(int error)
{
    return strerrordesc_np(error);
}
#elif defined(__linux__)
/* The other C libraries of Linux return constant strings from strerror(). */
static const char *describe(int error)
{
    return strerror(error);
}
#else
/* Those that setting up a session meets; strerror() may use one buffer for all threads here. */
static const char *describe(int error)
{
    static const struct {
        int error;
        const char *text;
    } known[] = {
        { 0, "Success" },
        { EPERM, "Operation not permitted" },
        { ENOENT, "No such file or directory" },
        { EINTR, "Interrupted system call" },
        { EIO, "Input/output error" },
        { E2BIG, "Argument list too long" },
        { EBADF, "Bad file descriptor" },
        { EAGAIN, "Resource temporarily unavailable" },
        { ENOMEM, "Cannot allocate memory" },
        { EACCES, "Permission denied" },
        { EBUSY, "Device or resource busy" },
        { EEXIST, "File exists" },
        { ENODEV, "No such device" },
        { ENOTDIR, "Not a directory" },
        { EISDIR, "Is a directory" },
        { EINVAL, "Invalid argument" },
        { EMFILE, "Too many open files" },
        { ENOTTY, "Inappropriate ioctl for device" },
        { ENOSPC, "No space left on device" },
        { ERANGE, "Numerical result out of range" },
        { ENAMETOOLONG, "File name too long" },
        { ENOSYS, "Function not implemented" },
        { ELOOP, "Too many levels of symbolic links" },
        { EPROTO, "Protocol error" },
        { ENOTSUP, "Operation not supported" },
        { ENOTCONN, "Transport endpoint is not connected" },
        { ECONNABORTED, "Software caused connection abort" },
        { ETIMEDOUT, "Connection timed out" },
        { EALREADY, "Operation already in progress" },
    };

    for (size_t i = 0; i < MF__ARRAY_SIZE(known); i++)
        if (known[i].error == error)
            return known[i].text;
    return NULL;
}
#endif

const char *mf__strerror(int error)
{
    const char *text;

    if (error < 0 && error != INT32_MIN)
        error = -error;
    text = describe(error);
    return text ? text : "Unknown error";
}
#undef ERROR_SIZE_0_1
#undef HAVE_STRERRORDESC

/* ==== core/base/log.c ==== */
/* SPDX-License-Identifier: MIT */
/* log.c - one line for the sink of the caller's choice. */


#define LINE_MAX_BYTES 1024

static const char *level_name(uint32_t level)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };

    return level < MF__ARRAY_SIZE(names) ? names[level] : "debug";
}

/* One write(2) per line, so that lines of several threads and processes do not mix. */
static void to_stderr(uint32_t level, const char *text)
{
    char line[LINE_MAX_BYTES + 32];
    int n = snprintf(line, sizeof(line), "manifuse: %s: %s\n", level_name(level), text);
    ssize_t rc;

    if (n <= 0)
        return;
    do
        rc = write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
    while (rc < 0 && errno == EINTR);
}

void mf__logf(const struct mf__log *log, uint32_t level, const char *fmt, ...)
{
    int saved = errno; /* callers log between a failed call and the look at its errno */
    char text[LINE_MAX_BYTES];
    va_list ap;
    int n;

    if (level > (log ? log->max_level : MF_LOG_WARNING))
        return;
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        text[0] = '\0';
    if (log && log->sink)
        log->sink(level, text, log->user);
    else
        to_stderr(level, text);
    errno = saved;
}
#undef LINE_MAX_BYTES

/* ==== core/base/wait.c ==== */
/* SPDX-License-Identifier: MIT */
/* wait.c - waiting with a limit, which no change of the system's clock moves. */
#include <time.h>


void mf__cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool mf__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(ns / MF_SECOND);
    until.tv_nsec = (long)(ns % MF_SECOND);
    return pthread_cond_timedwait(cond, lock, &until) == 0;
}

/* ==== core/mount/helper.c ==== */
/* SPDX-License-Identifier: MIT */
/* helper.c - fusermount3: it is installed setuid root, and mounts and unmounts for those who may not. */
/* core/mount/internal.h */
/* SPDX-License-Identifier: MIT */
/* internal.h - what the files of core/mount share. */
#ifndef MF_MOUNT_INTERNAL_H
#define MF_MOUNT_INTERNAL_H


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

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELPER "fusermount3"
#define UNMOUNT_MS 10000

/* Searched after $PATH, which a service may lack. */
#define USUAL_DIRS "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

int mf__helper_mount_ms = 30000;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bool find_in(const char *dirs, char *out, size_t size)
{
    struct stat st;

    for (size_t n; dirs; dirs = dirs[n] ? dirs + n + 1 : NULL) {
        n = strcspn(dirs, ":");
        /* Not in the working directory, be it named by "." or by nothing. */
        if (dirs[0] == '/' && (size_t)snprintf(out, size, "%.*s/%s", (int)n, dirs, HELPER) < size &&
            stat(out, &st) == 0 && S_ISREG(st.st_mode) && access(out, X_OK) == 0)
            return true;
    }
    return false;
}

bool mf__helper_find(char *out, size_t size)
{
    return find_in(secure_getenv("PATH"), out, size) || find_in(USUAL_DIRS, out, size);
}

/* ---- running it ------------------------------------------------------------------------------------ */

struct helper {
    pid_t pid;
    int sock;    /* our end of the socket on which the device comes; -1 = none */
    int text_fd; /* what it says on standard error */
    size_t used;
    char text[256];
};

/* Descriptors for a child must not be among those that they are moved to. */
static int move_high(int *fd)
{
    int high = fcntl(*fd, F_DUPFD_CLOEXEC, 10);

    if (high < 0)
        return -errno;
    close(*fd);
    *fd = high;
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Our environment with _FUSE_COMMFD=3 in it. Free the array only. */
static char **make_environment(void)
{
    static char comm[] = "_FUSE_COMMFD=3";
    size_t n = 0, used = 0;
    char **env;

    while (environ && environ[n])
        n++;
    env = calloc(n + 2, sizeof(*env));
    if (!env)
        return NULL;
    for (size_t i = 0; i < n && environ[i]; i++)
        if (strncmp(environ[i], "_FUSE_COMMFD=", 13))
            env[used++] = environ[i];
    env[used] = comm;
    return env;
}

/*
 * posix_spawn(), for this process may have threads and be large. The child gets /dev/null, our pipe as standard
 * error, the socket as 3, and nothing that somebody else forgot to mark close-on-exec.
 */
static int spawn(const char *path, char *const argv[], int sock, int text, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char **env = make_environment();
    int rc;

    if (!env)
        return -ENOMEM;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    /* It waits for a child of its own, which fails where SIGCHLD is ignored. */
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    rc = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDWR, 0);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, 0, 1);
    rc = rc ? rc : posix_spawn_file_actions_adddup2(&files, text, 2);
    if (!rc && sock >= 0)
        rc = posix_spawn_file_actions_adddup2(&files, sock, 3);
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 34)
    rc = rc ? rc : posix_spawn_file_actions_addclosefrom_np(&files, sock >= 0 ? 4 : 3);
#endif
#endif
    rc = rc ? rc : posix_spawn(pid, path, &files, &attr, argv, env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    free(env);
    return -rc;
}

static int start(struct helper *h, const char *path, char *const argv[], bool with_sock)
{
    int sv[2] = { -1, -1 }, text[2] = { -1, -1 }, rc = 0;

    *h = (struct helper){ .sock = -1, .text_fd = -1 };
    if (pipe2(text, O_CLOEXEC) < 0 || (with_sock && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0))
        rc = -errno;
    if (!rc)
        rc = move_high(&text[1]);
    if (!rc && with_sock)
        rc = move_high(&sv[1]);
    if (!rc)
        rc = spawn(path, argv, sv[1], text[1], &h->pid);
    close_fd(&text[1]);
    close_fd(&sv[1]);
    if (rc) {
        close_fd(&text[0]);
        close_fd(&sv[0]);
    }
    h->text_fd = text[0];
    h->sock = sv[0];
    return rc;
}

static bool gone(pid_t pid)
{
    pid_t rc = waitpid(pid, NULL, WNOHANG);

    /* ECHILD: the program ignores SIGCHLD, or reaps all children itself. */
    return rc == pid || (rc < 0 && errno == ECHILD);
}

static bool wait_gone(pid_t pid, int ms)
{
    int64_t end = now_ms() + ms;
    struct timespec pause = { .tv_nsec = 200000 };

    while (!gone(pid)) {
        if (now_ms() >= end)
            return false;
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 10000000)
            pause.tv_nsec *= 2;
    }
    return true;
}

static void reap(pid_t pid, int ms)
{
    if (wait_gone(pid, ms))
        return;
    kill(pid, SIGKILL);
    /* One that hangs in the kernel does not even die of that; we do not hang with it. */
    wait_gone(pid, 2000);
}

static void read_text(struct helper *h)
{
    char scratch[256], *at = h->text + h->used;
    size_t room = sizeof(h->text) - 1 - h->used;
    ssize_t n = room ? read(h->text_fd, at, room) : read(h->text_fd, scratch, sizeof(scratch));

    if (n > 0 && room)
        h->used += (size_t)n;
    else if (n == 0 || (n < 0 && errno != EINTR))
        close_fd(&h->text_fd);
}

/* The descriptor; 0 = end of file; -errno. Descriptor 0 cannot come: it is moved. */
static int receive_fd(int sock)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char c;
    struct iovec iov = { &c, 1 };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *head;
    ssize_t n;
    int fd;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : 0;
    head = CMSG_FIRSTHDR(&msg);
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len < CMSG_LEN(sizeof(int)))
        return -EPROTO;
    memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    if (fd == 0) {
        fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
        close(0);
    }
    return fd;
}

/* Read what it says until it sends the device (returned), hangs up (0), or the time is over (-ETIMEDOUT). */
static int await_fd(struct helper *h, int64_t end)
{
    for (;;) {
        struct pollfd p[2] = { { .fd = h->sock, .events = POLLIN }, { .fd = h->text_fd, .events = POLLIN } };
        int64_t left = end - now_ms();
        int n = left > 0 ? poll(p, 2, (int)left) : 0;

        if (n == 0)
            return -ETIMEDOUT;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && p[1].revents)
            read_text(h);
        if (n > 0 && p[0].revents)
            return receive_fd(h->sock);
        if (h->sock < 0 && h->text_fd < 0)
            return 0;
    }
}

/* Its words in one line, without its own name in front. */
static const char *said(struct helper *h)
{
    char *text = h->text;

    h->text[h->used] = '\0';
    while (h->used && h->text[h->used - 1] == '\n')
        h->text[--h->used] = '\0';
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    if (!strncmp(text, HELPER ": ", sizeof(HELPER ": ") - 1))
        text += sizeof(HELPER ": ") - 1;
    return *text ? text : "it does not say why";
}

/* ---- mounting -------------------------------------------------------------------------------------- */

/* Two names with every character escaped, and all the options that there are. */
#define OPTIONS_SIZE (2 * sizeof(struct mf__mount_opts) + 256)

struct text {
    char *at, *end;
};

static void add(struct text *t, const char *name, const char *value)
{
    int n = snprintf(t->at, (size_t)(t->end - t->at), "%s%s", name, value ? value : "");

    if (n > 0 && n < t->end - t->at)
        t->at += n;
}

/* A value may hold what separates options. */
static void add_escaped(struct text *t, const char *name, const char *value)
{
    char one[3];

    add(t, name, NULL);
    for (; *value; value++) {
        snprintf(one, sizeof(one), "%s%c", *value == ',' || *value == '\\' ? "\\" : "", *value);
        add(t, one, NULL);
    }
}

static void write_options(const struct mf__mount_opts *o, char *out, size_t size)
{
    static const struct {
        unsigned long flag;
        const char *name;
    } flags[] = {
        { MF__MS_NOEXEC, ",noexec" },     { MF__MS_SYNCHRONOUS, ",sync" },        { MF__MS_DIRSYNC, ",dirsync" },
        { MF__MS_NOATIME, ",noatime" },   { MF__MS_STRICTATIME, ",strictatime" }, { MF__MS_NODIRATIME, ",nodiratime" },
        { MF__MS_LAZYTIME, ",lazytime" },
    };
    struct text t = { out, out + size };
    char number[16];

    add(&t, o->ms_flags & MF__MS_RDONLY ? "ro" : "rw", NULL);
    /* nosuid and nodev are its default, and for all but root its law. */
    if (geteuid() == 0)
        add(&t, o->ms_flags & MF__MS_NOSUID ? "" : ",suid", o->ms_flags & MF__MS_NODEV ? "" : ",dev");
    for (size_t i = 0; i < MF__ARRAY_SIZE(flags); i++)
        if (o->ms_flags & flags[i].flag)
            add(&t, flags[i].name, NULL);
    if (o->default_permissions)
        add(&t, ",default_permissions", NULL);
    if (o->allow_other || o->allow_root)
        add(&t, ",allow_other", NULL);
    snprintf(number, sizeof(number), "%u", o->max_read);
    if (o->max_read)
        add(&t, ",max_read=", number);
    add_escaped(&t, ",fsname=", o->fsname[0] ? o->fsname : MF__DEFAULT_FSNAME);
    if (o->subtype[0])
        add_escaped(&t, ",subtype=", o->subtype);
}

/* It failed half-way: a mount without a server would hang about at the path. */
static void remove_remains(const char *path)
{
    struct mf__mount_line line;

    if (!mf__mount_line_find(path, 0, &line) && mf__is_fuse_type(line.type))
        mf__helper_unmount(path);
}

static int mount_helper_refused(struct helper *h, int rc, const char *path, const char *why, struct mf_error *err)
{
    close_fd(&h->sock);
    if (rc == -ETIMEDOUT) {
        reap(h->pid, 0);
        remove_remains(path);
        return mf__errorf(err, rc,
                          "cannot mount at '%s': " HELPER " did not answer within %d seconds and was killed"
                          " (it was asked because %s)",
                          path, mf__helper_mount_ms / 1000, why);
    }
    while (h->text_fd >= 0 && await_fd(h, now_ms() + 1000) != -ETIMEDOUT)
        ;
    reap(h->pid, 1000);
    remove_remains(path);
    if (rc == 0)
        rc = access(path, W_OK) < 0 && errno == EACCES ? -EACCES : -EPERM;
    return mf__errorf(err, rc, "cannot mount at '%s': " HELPER " refused: %s (it was asked because %s)", path, said(h),
                      why);
}

int mf__helper_mount(const char *path, const struct mf__mount_opts *opts, const char *why, int *fd,
                     struct mf_error *err)
{
    char helper[512], options[OPTIONS_SIZE];
    char *argv[] = { HELPER, "-o", options, "--", (char *)path, NULL };
    struct helper h;
    int rc;

    if (!mf__helper_find(helper, sizeof(helper)))
        return mf__errorf(err, -EPERM,
                          "cannot mount at '%s': not permitted directly (%s), and there is no " HELPER
                          " to do it: run as root or install the fuse3 package",
                          path, why);
    write_options(opts, options, sizeof(options));
    rc = start(&h, helper, argv, true);
    if (rc)
        return mf__errorf(err, rc, "cannot mount at '%s': starting %s: %s", path, helper, mf__strerror(rc));
    rc = await_fd(&h, now_ms() + mf__helper_mount_ms);
    if (rc <= 0) {
        rc = mount_helper_refused(&h, rc, path, why, err);
        close_fd(&h.text_fd);
        return rc;
    }
    *fd = rc;
    close_fd(&h.text_fd);
    close_fd(&h.sock);
    reap(h.pid, 5000);
    return 0;
}

int mf__helper_unmount(const char *path)
{
    char helper[512];
    char *argv[] = { HELPER, "-u", "-q", "-z", "--", (char *)path, NULL };
    struct helper h;
    int rc;

    if (!mf__helper_find(helper, sizeof(helper)))
        return -EPERM;
    rc = start(&h, helper, argv, false);
    if (rc)
        return rc;
    rc = await_fd(&h, now_ms() + UNMOUNT_MS);
    reap(h.pid, rc < 0 ? 0 : 1000);
    close_fd(&h.text_fd);
    return rc;
}

#else

/* A translation unit must not be empty. */
typedef int mf__helper_is_for_linux;

#endif
#undef HELPER
#undef OPTIONS_SIZE
#undef UNMOUNT_MS
#undef USUAL_DIRS

/* ==== core/mount/mount.c ==== */
/* SPDX-License-Identifier: MIT */
/* mount.c - check the mount point, then mount: the new API, else mount(2), else fusermount3. */


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
static int mount_mount_watch(struct attempt *a)
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

static int mount_mount_set_number(struct attempt *a, int fs, const char *key, const char *format, unsigned value)
{
    char text[16];

    snprintf(text, sizeof(text), format[0] == 'o' ? "%o" : "%u", value);
    return set_string(a, fs, key, text);
}

static int mount_mount_set_flag(struct attempt *a, int fs, const char *key, bool wanted)
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
        (rc = mount_mount_set_number(a, fs, "fd", "u", (unsigned)a->fd)) ||
        (rc = mount_mount_set_number(a, fs, "rootmode", "o", o->file_root ? S_IFREG : S_IFDIR)) ||
        (rc = mount_mount_set_number(a, fs, "user_id", "u", getuid())) || (rc = mount_mount_set_number(a, fs, "group_id", "u", getgid())) ||
        (o->max_read && (rc = mount_mount_set_number(a, fs, "max_read", "u", o->max_read))) ||
        (rc = mount_mount_set_flag(a, fs, "default_permissions", o->default_permissions)) ||
        (rc = mount_mount_set_flag(a, fs, "allow_other", o->allow_other || o->allow_root)) ||
        (rc = mount_mount_set_flag(a, fs, "ro", o->ms_flags & MF__MS_RDONLY)) ||
        (rc = mount_mount_set_flag(a, fs, "sync", o->ms_flags & MF__MS_SYNCHRONOUS)) ||
        (rc = mount_mount_set_flag(a, fs, "dirsync", o->ms_flags & MF__MS_DIRSYNC)) ||
        (rc = mount_mount_set_flag(a, fs, "lazytime", o->ms_flags & MF__MS_LAZYTIME)))
        return rc;
    return 0;
}

/* Only now does anything bind to the device; with SYNC_INIT this waits until INIT has been answered. */
static int mount_mount_create(struct attempt *a, int fs)
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
    rc = rc ? failed(a, rc, "telling the new mount from others") : mount_mount_watch(a);
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
        rc = mount_mount_create(a, fs);
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
    rc = mount_mount_watch(a);
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
    rc = mount_mount_watch(a);
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
#undef DEVICE
#undef IOC_SYNC_INIT

/* ==== core/mount/options.c ==== */
/* SPDX-License-Identifier: MIT */
/* options.c - the text after -o. */


#define ATIME_BITS (MF__MS_NOATIME | MF__MS_RELATIME | MF__MS_STRICTATIME)

enum kind {
    FLAG,      /* sets and clears bits of ms_flags */
    ROOT_FLAG, /* likewise, and only root may */
    SWITCH,    /* a bool at `offset` */
    NUMBER,    /* a uint32_t at `offset` */
    TEXT,      /* a char[size] at `offset` */
    ROOTMODE,  /* the type of the root */
    IGNORED,   /* for mount(8) and its like, not for us */
    RESERVED,  /* the kernel's, but the engine's to set */
};

struct option {
    const char *name;
    enum kind kind;
    unsigned long set, clear; /* FLAG */
    size_t offset, size;      /* the others */
    const char *value;        /* how its value is called in texts */
};

#define AT(field) .offset = offsetof(struct mf__mount_opts, field), .size = sizeof(((struct mf__mount_opts *)0)->field)

static const struct option options[] = {
    { "ro", FLAG, .set = MF__MS_RDONLY },
    { "rw", FLAG, .clear = MF__MS_RDONLY },
    { "nosuid", FLAG, .set = MF__MS_NOSUID },
    { "suid", ROOT_FLAG, .clear = MF__MS_NOSUID },
    { "nodev", FLAG, .set = MF__MS_NODEV },
    { "dev", ROOT_FLAG, .clear = MF__MS_NODEV },
    { "noexec", FLAG, .set = MF__MS_NOEXEC },
    { "exec", FLAG, .clear = MF__MS_NOEXEC },
    { "sync", FLAG, .set = MF__MS_SYNCHRONOUS },
    { "async", FLAG, .clear = MF__MS_SYNCHRONOUS },
    { "dirsync", FLAG, .set = MF__MS_DIRSYNC },
    { "noatime", FLAG, .set = MF__MS_NOATIME, .clear = ATIME_BITS },
    { "atime", FLAG, .clear = MF__MS_NOATIME },
    { "relatime", FLAG, .set = MF__MS_RELATIME, .clear = ATIME_BITS },
    { "norelatime", FLAG, .clear = MF__MS_RELATIME },
    { "strictatime", FLAG, .set = MF__MS_STRICTATIME, .clear = ATIME_BITS },
    { "nostrictatime", FLAG, .clear = MF__MS_STRICTATIME },
    { "nodiratime", FLAG, .set = MF__MS_NODIRATIME },
    { "diratime", FLAG, .clear = MF__MS_NODIRATIME },
    { "lazytime", FLAG, .set = MF__MS_LAZYTIME },
    { "nolazytime", FLAG, .clear = MF__MS_LAZYTIME },
    { "default_permissions", SWITCH, AT(default_permissions) },
    { "allow_other", SWITCH, AT(allow_other) },
    { "allow_root", SWITCH, AT(allow_root) },
    { "auto_unmount", SWITCH, AT(auto_unmount) },
    { "max_read", NUMBER, AT(max_read), .value = "BYTES" },
    { "blksize", NUMBER, AT(blksize), .value = "BYTES" },
    { "fsname", TEXT, AT(fsname), .value = "NAME" },
    { "subtype", TEXT, AT(subtype), .value = "NAME" },
    { "rootmode", ROOTMODE, .value = "40000|100000" },
    { "defaults", .kind = IGNORED },
    { "auto", .kind = IGNORED },
    { "noauto", .kind = IGNORED },
    { "user", .kind = IGNORED },
    { "nouser", .kind = IGNORED },
    { "users", .kind = IGNORED },
    { "owner", .kind = IGNORED },
    { "group", .kind = IGNORED },
    { "_netdev", .kind = IGNORED },
    { "nofail", .kind = IGNORED },
    { "nonempty", .kind = IGNORED },
    { "comment", .kind = IGNORED },
    { "fd", .kind = RESERVED },
    { "user_id", .kind = RESERVED },
    { "group_id", .kind = RESERVED },
};

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    a = a < b ? a : b;
    return a < c ? a : c;
}

#define LONGEST 32

unsigned mf__edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned row[3][LONGEST + 1];

    if (na > LONGEST || nb > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *now = row[i % 3];
        const unsigned *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
    }
    return row[na % 3][nb];
}

/* What was meant, or NULL where nothing is near. Short names have to be nearer: "uid" is no "suid". */
static const char *nearest(const char *name)
{
    size_t len = strlen(name);
    unsigned best = len < 4 ? 2 : len < 8 ? 3 : 4;
    const char *found = NULL;

    for (size_t i = 0; i < MF__ARRAY_SIZE(options); i++) {
        const struct option *o = &options[i];
        unsigned d = mf__edit_distance(name, o->name);

        if (d < best && o->kind != RESERVED && (len >= 4 || o->name[0] == name[0])) {
            best = d;
            found = o->name;
        }
    }
    return found;
}

static const struct option *mount_options_find(const char *name)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(options); i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    return NULL;
}

static int unknown(const char *name, struct mf_error *err)
{
    const char *near = nearest(name);

    if (near)
        return mf__errorf(err, -EINVAL, "unknown mount option '%.64s'; did you mean '%s'?", name, near);
    return mf__errorf(err, -EINVAL, "unknown mount option '%.64s'", name);
}

static int mount_options_set_number(const struct option *o, const char *value, uint32_t *out, struct mf_error *err)
{
    uint64_t n = 0;

    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '9')
            return mf__errorf(err, -EINVAL, "mount option '%s': '%.64s' is not a number of bytes", o->name, value);
        n = n * 10 + (uint64_t)(*p - '0');
        if (n > UINT32_MAX)
            break;
    }
    if (!strcmp(o->name, "max_read")) {
        if ((n && n < MF__PAGE) || n > INT32_MAX)
            return mf__errorf(err, -EINVAL,
                              "mount option 'max_read': %.64s is not within 4096 to 2147483647 (or 0: no"
                              " limit)",
                              value);
    } else if (n < 512 || n > MF__PAGE || (n & (n - 1))) {
        return mf__errorf(err, -EINVAL, "mount option 'blksize': %.64s is not a power of two within 512 to 4096",
                          value);
    }
    *out = (uint32_t)n;
    return 0;
}

static int set_text(const struct option *o, const char *value, char *out, struct mf_error *err)
{
    size_t len = strlen(value);

    if (len >= o->size)
        return mf__errorf(err, -EINVAL, "mount option '%s': the value has %zu bytes, at most %zu are possible", o->name,
                          len, o->size - 1);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return mf__errorf(err, -EINVAL, "mount option '%s': the value contains a control character", o->name);
    memcpy(out, value, len + 1);
    return 0;
}

static int set_rootmode(const char *value, struct mf__mount_opts *out, struct mf_error *err)
{
    if (strcmp(value, "40000") && strcmp(value, "100000"))
        return mf__errorf(err, -EINVAL,
                          "mount option 'rootmode': '%.64s' is neither 40000 (the root is a directory) nor"
                          " 100000 (it is a file)",
                          value);
    out->file_root = value[0] == '1';
    return 0;
}

static int mount_options_set_flag(const struct option *o, struct mf__mount_opts *out, struct mf_error *err)
{
    if (o->kind == ROOT_FLAG && geteuid() != 0)
        return mf__errorf(err, -EPERM, "mount option '%s': only root may use it", o->name);
    out->ms_flags = (out->ms_flags & ~o->clear) | o->set;
    return 0;
}

static int mount_options_apply(const char *name, const char *value, struct mf__mount_opts *out, struct mf_error *err)
{
    const struct option *o = mount_options_find(name);
    void *field;

    if (!strncmp(name, "x-", 2) || !strncmp(name, "X-", 2))
        return 0;
    if (!o)
        return unknown(name, err);
    if (o->kind == IGNORED)
        return 0;
    if (o->kind == RESERVED)
        return mf__errorf(err, -EINVAL, "mount option '%s': the engine sets it itself", name);
    if (o->value && (!value || !*value))
        return mf__errorf(err, -EINVAL, "mount option '%s' needs a value: %s=%s", name, name, o->value);
    if (!o->value && value)
        return mf__errorf(err, -EINVAL, "mount option '%s' takes no value, but was given '%.64s'", name, value);
    field = (char *)out + o->offset;
    switch (o->kind) {
    case SWITCH: *(bool *)field = true; return 0;
    case NUMBER: return mount_options_set_number(o, value, field, err);
    case TEXT: return set_text(o, value, field, err);
    case ROOTMODE: return set_rootmode(value, out, err);
    default: return mount_options_set_flag(o, out, err);
    }
}

/*
 * Cut one option off the front of `text` and undo its escapes in place. *value is behind its first bare '=',
 * NULL where it has none. Returns the rest, NULL at the end, or `text` itself for a backslash with nothing
 * behind it.
 */
static char *cut(char *text, char **value)
{
    char *to = text, *from = text;

    *value = NULL;
    for (; *from && *from != ','; from++) {
        if (*from == '\\') {
            if (!from[1])
                return text;
            *to++ = *++from;
        } else if (*from == '=' && !*value) {
            *to++ = '\0';
            *value = to;
        } else {
            *to++ = *from;
        }
    }
    from = *from ? from + 1 : NULL;
    *to = '\0';
    return from;
}

int mf__mount_opts_parse(const char *text, struct mf__mount_opts *out, struct mf_error *err)
{
    char *copy, *at, *next, *value;
    int rc = 0;

    memset(out, 0, sizeof(*out));
    out->ms_flags = MF__MS_NOSUID | MF__MS_NODEV;
    if (!text)
        return 0;
    copy = strdup(text);
    if (!copy)
        return mf__errorf(err, -ENOMEM, "no memory for the mount options");
    for (at = copy; at && !rc; at = next) {
        next = cut(at, &value);
        if (next == at)
            rc = mf__errorf(err, -EINVAL, "the mount options end in a backslash that escapes nothing");
        else if (*at || value)
            rc = mount_options_apply(at, value, out, err);
    }
    if (!rc && out->allow_other && out->allow_root)
        rc = mf__errorf(err, -EINVAL, "mount options 'allow_other' and 'allow_root' exclude each other");
    free(copy);
    return rc;
}
#undef AT
#undef ATIME_BITS
#undef LONGEST

/* ==== core/mount/unmount.c ==== */
/* SPDX-License-Identifier: MIT */
/* unmount.c - which mount is at a path, and undoing it. */


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
#undef ASK_MNT_ID
#undef ASK_MNT_ID_UNIQUE
#undef STAT_DONT_SYNC
#undef STAT_EMPTY_PATH
#undef STAT_NO_AUTOMOUNT

/* ==== core/mount/watch.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * watch.c - auto_unmount: a process that outlives us and cleans up. fusermount3 has the like, but it takes the
 * dead mount of a user for a live one (seen with 3.14), and it knows mounts by their paths only.
 */

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY_MS 10000

/*
 * The handlers that others registered for fork() may take locks that threads hold which the child lacks. The
 * child does nothing but system calls.
 */
static pid_t fork_bare(void)
{
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 34)
    return _Fork();
#endif
#endif
    return fork();
}

/*
 * Run-time checkers wrap _exit() and prctl(): in the child these look for the parent's threads, or wait for locks
 * that the parent's threads held.
 */
static _Noreturn void mount_watch_leave(int status)
{
    for (;;)
        syscall(SYS_exit_group, status);
}

static void set_name(const char *name)
{
    syscall(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
}

/* Keep `fd` as descriptor 0 and nothing else: above all not the device, which would keep the mount alive. */
static void keep_only(int fd)
{
    struct rlimit limit = { .rlim_cur = 1024 };

    if (fd != 0 && dup2(fd, 0) < 0)
        mount_watch_leave(1);
    (void)fcntl(0, F_SETFD, FD_CLOEXEC);
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 1u, ~0u, 0u) == 0)
        return;
#endif
    getrlimit(RLIMIT_NOFILE, &limit);
    for (rlim_t i = 1; i < limit.rlim_cur; i++)
        close((int)i);
}

struct mount_watch_watched {
    const char *path;
    const struct mf__ident *ident;
    char helper[512]; /* "" = there is none */
};

/*
 * In the detached child. All signals stay blocked, as they were before the fork: a service manager that ends
 * all processes of a service shall find the mount gone when its server is.
 */
static _Noreturn void mount_watch_watch(int fd, const struct mount_watch_watched *w)
{
    char *argv[] = { "fusermount3", "-u", "-q", "-z", "--", (char *)w->path, NULL };
    char c = 'r';
    ssize_t n;

    keep_only(fd);
    (void)setsid();
    set_name("mf-auto-unmount");
    if (chdir("/") < 0 || write(0, &c, 1) != 1)
        mount_watch_leave(1);
    do
        n = read(0, &c, 1);
    while (n > 0 || (n < 0 && errno == EINTR));
    /* Where it is ours but not for us to unmount, it is so for fusermount3. */
    if (mf__umount_if(w->path, w->ident) == -EPERM && w->helper[0])
        execve(w->helper, argv, environ);
    mount_watch_leave(0);
}

/* The child of a child: when the one between has ended, the watcher is init's to reap. */
static int fork_twice(int fd, const struct mount_watch_watched *w)
{
    pid_t pid = fork_bare();

    if (pid < 0)
        return -errno;
    if (pid == 0) {
        pid = fork_bare();
        if (pid == 0)
            mount_watch_watch(fd, w);
        mount_watch_leave(pid < 0);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

/* The watcher reports once it has cut itself loose; end of file: it could not. */
static int await_ready(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char c;
    int n;

    do
        n = poll(&p, 1, READY_MS);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return -ETIMEDOUT;
    return read(fd, &c, 1) == 1 ? 0 : -EAGAIN;
}

int mf__watch(const char *path, const struct mf__ident *ident, int *sock)
{
    struct mount_watch_watched w = { .path = path, .ident = ident };
    sigset_t all, old;
    int sv[2], rc;

    if (!mf__helper_find(w.helper, sizeof(w.helper)))
        w.helper[0] = '\0';
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return -errno;
    /* Else a handler of the program's could run in the child, between fork and exit. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = fork_twice(sv[1], &w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(sv[1]);
    if (!rc)
        rc = await_ready(sv[0]);
    if (rc)
        close(sv[0]);
    else
        *sock = sv[0];
    return rc;
}

#else

/* A translation unit must not be empty. */
typedef int mf__watch_is_for_linux;

#endif
#undef READY_MS

/* ==== core/session/attach.c ==== */
/* SPDX-License-Identifier: MIT */
/* attach.c - how a session comes by its connection: its own mount, descriptors from elsewhere, memory. */

/* abi/include/manifuse/testing.h */
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


/* ---- a mount of our own ---------------------------------------------------------------------------- */

/* With SYNC_INIT the mount call waits for INIT to be answered, so another thread answers it meanwhile. */
struct greeter {
    struct mf_session *s;
    struct mf_error *err;
    pthread_t thread;
    bool running;
    _Atomic bool done;
    int rc;
};

static void *greeter_main(void *arg)
{
    struct greeter *g = arg;

    g->rc = mf__handshake(g->s, g->err);
    atomic_store(&g->done, true);
    return NULL;
}

static int take_device(struct mf_session *s, int fd)
{
    struct mf__channel *ch;
    int rc = mf__device_channel(fd, &ch);

    return rc < 0 ? rc : mf__channels_add(s, ch);
}

/* Undo take_device() and the clones: the descriptor itself stays with whoever opened it. */
static void drop_device(struct mf_session *s)
{
    if (s->channel_count)
        s->channels[0]->fd = -1;
    mf__channels_close(s);
}

static int greeter_start(int fd, void *arg)
{
    struct greeter *g = arg;
    int rc = take_device(g->s, fd);

    if (rc < 0)
        return rc;
    rc = -pthread_create(&g->thread, NULL, greeter_main, g);
    if (rc < 0)
        drop_device(g->s);
    g->running = rc == 0;
    return rc;
}

static void greeter_end(int rc, void *arg)
{
    struct greeter *g = arg;

    if (!g->running)
        return;
    if (rc < 0) {
        atomic_store(&g->s->stop, 1);
        while (!atomic_load(&g->done)) {
            pthread_kill(g->thread, mf__kick_install());
            usleep(1000);
        }
    }
    pthread_join(g->thread, NULL);
    atomic_store(&g->s->stop, 0);
    g->running = false;
    if (rc < 0)
        drop_device(g->s);
}

static void undo_mount(struct mf_session *s)
{
    mf__unmount(&s->mount);
    mf__channels_close(s);
    mf__mount_release(&s->mount);
}

int mf__attach_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err)
{
    struct greeter g = { .s = s, .err = err, .rc = 1 };
    struct mf__mount_hooks hooks = { .on_device = greeter_start, .after = greeter_end, .user = &g };
    struct mf_error mount_err = { .size = sizeof(mount_err) };
    int rc;

    mf__kick_install();
    rc = mf__mount(mountpoint, &s->mount_opts, &hooks, &s->mount, &mount_err);
    if (rc < 0) {
        if (g.rc < 0 && g.rc != -ECANCELED && g.rc != -EINTR)
            return g.rc; /* the handshake failed, and the mount with it: that text says more */
        return mf__errorf(err, rc, "%s", mount_err.text);
    }
    if (s->channel_count == 0) {
        rc = take_device(s, s->mount.fd);
        g.rc = rc < 0 ? rc : mf__handshake(s, err);
    }
    s->mount.fd = s->channel_count ? -1 : s->mount.fd;
    if (g.rc < 0) {
        undo_mount(s);
        return g.rc;
    }
    s->mounted = true;
    return 0;
}

/* ---- descriptors of a mount made elsewhere --------------------------------------------------------- */

static int check_fds(const int *fds, uint32_t n, struct mf_error *err)
{
    uint64_t first = 0;

    if (n == 0 || n > MF__MAX_READERS)
        return mf__errorf(err, -EINVAL, "%u descriptors: 1 to %u are needed", n, MF__MAX_READERS);
    for (uint32_t i = 0; i < n; i++) {
        int rc = mf__is_fuse_fd(fds[i]);
        uint64_t number;

        if (rc < 0)
            return mf__errorf(err, rc, "descriptor %d is no descriptor of /dev/fuse: %s", fds[i], mf__strerror(-rc));
        number = mf__connection_number(fds[i]);
        if (i == 0)
            first = number;
        else if (number != first)
            return mf__errorf(err, -EINVAL, "descriptors %d and %d belong to different connections (%llu, %llu)",
                              fds[0], fds[i], (unsigned long long)first, (unsigned long long)number);
    }
    return 0;
}

int mf__attach_channels(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err)
{
    int rc = check_fds(fds, n, err);

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        int flags = fcntl(fds[i], F_GETFD);

        if (flags >= 0)
            fcntl(fds[i], F_SETFD, flags | FD_CLOEXEC);
        rc = take_device(s, fds[i]);
    }
    return rc;
}

static void give_back_fds(struct mf_session *s, uint32_t n)
{
    for (uint32_t i = 0; i < n && i < s->channel_count; i++)
        s->channels[i]->fd = -1;
    mf__channels_close(s);
}

/* Whoever mounted decided by allow_other who gets here; only a narrower wish is ours to enforce. */
static void attached_acl(struct mf_session *s)
{
    if (s->opts.acl == MF_ACL_OWNER)
        s->opts.acl = MF_ACL_ALL;
}

int mf_session_attach_fds(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err)
{
    int rc;

    pthread_mutex_lock(&s->lock);
    rc = s->phase == MF__NEW ? 0 : mf__errorf(err, -EBUSY, "the session has a connection already");
    pthread_mutex_unlock(&s->lock);
    if (rc < 0)
        return rc;
    attached_acl(s);
    rc = mf__attach_channels(s, fds, n, err);
    if (rc == 0)
        rc = mf__handshake(s, err);
    if (rc < 0)
        give_back_fds(s, n);
    else
        s->phase = MF__READY;
    return rc;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

int mf_session_attach_vkernel(struct mf_session *s, struct mf_vkernel *vk, struct mf_error *err)
{
    struct mf__channel *ch;
    int rc;

    if (s->phase != MF__NEW)
        return mf__errorf(err, -EBUSY, "the session has a connection already");
    attached_acl(s);
    rc = mf__memory_channel(vk, &ch);
    if (rc < 0)
        return mf__errorf(err, rc, "no channel of the virtual kernel: %s", mf__strerror(-rc));
    rc = mf__channels_add(s, ch);
    if (rc == 0)
        rc = mf__handshake(s, err);
    if (rc < 0)
        mf__channels_close(s);
    else
        s->phase = MF__READY;
    return rc;
}

/* ==== core/session/channels.c ==== */
/* SPDX-License-Identifier: MIT */
/* channels.c - which descriptors a session reads, and a reader for each. */


#define AUTO_READERS_MAX 8u

/* How many readers the options ask for. */
uint32_t mf__reader_target(const struct mf_session *s)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = s->opts.readers;

    if (n == 0) {
        /* Two at least: one handler that waits shall not stop the mount. */
        n = cpus < 2 ? 2 : (uint32_t)cpus;
        if (n > AUTO_READERS_MAX)
            n = AUTO_READERS_MAX;
    }
    return n < s->channel_count ? s->channel_count : n;
}

int mf__channels_add(struct mf_session *s, struct mf__channel *ch)
{
    if (s->channel_count == MF__MAX_READERS)
        return -EMFILE;
    ch->index = s->channel_count;
    s->channels[s->channel_count++] = ch;
    s->channels_had = s->channel_count;
    return 0;
}

static void note_clone_failure(struct mf_session *s, uint32_t reader, int rc)
{
    if (!s->clone_error) {
        s->clone_error = (uint32_t)-rc;
        snprintf(s->clone_reason, sizeof(s->clone_reason), "clone for reader %u failed: %s", reader, mf__strerror(-rc));
    }
    mf__logf(&s->log, MF_LOG_WARNING, "no clone of the device for reader %u (%s): it shares descriptor %d", reader,
             mf__strerror(-rc), s->channels[0]->fd);
}

/* Clone until there is a channel for each reader, or cloning fails: then the rest shares the first one. */
int mf__channels_clone(struct mf_session *s, uint32_t readers, struct mf_error *err)
{
    if (s->opts.clone_fd == MF_CLONE_OFF) {
        snprintf(s->clone_reason, sizeof(s->clone_reason), "%s", readers > 1 ? "cloning is off by option" : "");
        return 0;
    }
    while (s->channel_count < readers) {
        struct mf__channel *ch;
        int rc = s->channels[0]->ops->clone(s->channels[0], &ch);

        if (rc == 0) {
            rc = mf__channels_add(s, ch);
            if (rc < 0)
                mf__channel_put(ch);
        }
        if (rc == 0)
            continue;
        note_clone_failure(s, s->channel_count, rc);
        if (s->opts.clone_fd == MF_CLONE_REQUIRE)
            return mf__errorf(err, rc,
                              "cannot clone the device for reader %u: %s; --clone auto would share one descriptor",
                              s->channel_count, mf__strerror(-rc));
        return 0;
    }
    return 0;
}

int mf__readers_make(struct mf_session *s, uint32_t count)
{
    struct mf__reader *r;
    int rc = 0;

    for (uint32_t i = atomic_load(&s->reader_count); i < count && rc == 0; i++)
        rc = mf__reader_add(s, false, &r);
    return rc;
}

/* The channel of the next reader: its own where there is one or cloning makes one, else the shared first. */
static struct mf__channel *channel_for(struct mf_session *s, uint32_t index, bool own, int *rc)
{
    struct mf__channel *ch = NULL;

    *rc = 0;
    if (index < s->channel_count)
        return s->channels[index];
    if (own && s->opts.clone_fd != MF_CLONE_OFF) {
        *rc = s->channels[0]->ops->clone(s->channels[0], &ch);
        if (*rc == 0 && mf__channels_add(s, ch) == 0)
            return ch;
        if (*rc == 0) {
            mf__channel_put(ch);
            *rc = -EMFILE;
        }
        if (s->opts.clone_fd == MF_CLONE_REQUIRE)
            return NULL;
        if (!s->clone_error)
            note_clone_failure(s, index, *rc);
        *rc = 0;
    }
    return s->channels[0];
}

int mf__reader_add(struct mf_session *s, bool own_channel, struct mf__reader **out)
{
    uint32_t index = atomic_load(&s->reader_count);
    struct mf__channel *ch;
    int rc;

    if (index == MF__MAX_READERS)
        return -EMFILE;
    ch = channel_for(s, index, own_channel, &rc);
    if (!ch)
        return rc;
    rc = mf__reader_new(s, ch, &s->readers[index]);
    if (rc < 0)
        return rc;
    *out = s->readers[index];
    atomic_store_explicit(&s->reader_count, index + 1, memory_order_release);
    return 0;
}

void mf__channels_close(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->channel_count; i++)
        mf__channel_put(s->channels[i]);
    s->channel_count = 0;
}
#undef AUTO_READERS_MAX

/* ==== core/session/cmdline.c ==== */
/* SPDX-License-Identifier: MIT */
/* cmdline.c - the command line that filesystem programs in all languages have in common, and a main(). */



#define EXIT_CLEAN 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2

enum what { READERS, CLONE, URING, PLACEMENT, MOUNT_OPTIONS, DEBUG, HELP };

static const struct {
    const char *name;
    enum what what;
    const char *value; /* NULL: it takes none */
} switches[] = {
    { "readers", READERS, "N" },
    { "clone", CLONE, "off|auto|require" },
    { "uring", URING, "off|auto|require" },
    { "placement", PLACEMENT, "auto|pinned|free" },
    { "o", MOUNT_OPTIONS, "OPTION[,OPTION]" },
    { "debug", DEBUG, NULL },
    { "help", HELP, NULL },
    { "h", HELP, NULL },
};

struct parser {
    int argc, at;
    char **argv;
    bool wants_source;
    int positionals;
    struct mf_cmdline *out;
};

static const char *program_name(int argc, char **argv)
{
    const char *slash = argc > 0 && argv[0] ? strrchr(argv[0], '/') : NULL;

    if (slash)
        return slash[1] ? slash + 1 : "filesystem";
    return argc > 0 && argv[0] && argv[0][0] ? argv[0] : "filesystem";
}

__attribute__((format(printf, 2, 3))) static int usage_error(struct mf_cmdline *out, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out->text, sizeof(out->text), fmt, ap);
    va_end(ap);
    return -EINVAL;
}

static void write_help(struct mf_cmdline *out, const char *program, bool wants_source)
{
    snprintf(out->text, sizeof(out->text),
             "usage: %.100s %sMOUNTPOINT [options]\n"
             "\n"
             "Serves until it is unmounted or gets SIGINT, SIGTERM or SIGHUP.\n"
             "\n"
             "  --readers N                 threads that serve requests; 0 = automatic\n"
             "  --clone off|auto|require    a device descriptor for each reader (auto)\n"
             "  --uring off|auto|require    requests over io_uring instead of the device (auto)\n"
             "  --placement auto|pinned|free  where readers run (auto)\n"
             "  -o OPTION[,OPTION]          mount options: ro, allow_other, allow_root, auto_unmount,\n"
             "                              default_permissions, max_read=N, fsname=NAME, subtype=NAME, ...\n"
             "  --debug                     log each request\n"
             "  --help                      this text\n",
             program, wants_source ? "SOURCE " : "");
}

static int set_readers(struct mf_cmdline *out, const char *value)
{
    uint32_t n = 0;

    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '9' || n > MF__MAX_READERS)
            return usage_error(out, "--readers: '%.64s' is not a number from 0 (automatic) to %u", value,
                               MF__MAX_READERS);
        n = n * 10 + (uint32_t)(*p - '0');
    }
    if (!*value || n > MF__MAX_READERS)
        return usage_error(out, "--readers: '%.64s' is not a number from 0 (automatic) to %u", value, MF__MAX_READERS);
    out->opts.readers = n;
    return 0;
}

static int session_cmdline_set_mode(struct mf_cmdline *out, const char *name, const char *value, uint32_t *mode)
{
    /* The two enumerations have the same values. */
    _Static_assert((int)MF_CLONE_AUTO == (int)MF_URING_AUTO && (int)MF_CLONE_OFF == (int)MF_URING_OFF &&
                       (int)MF_CLONE_REQUIRE == (int)MF_URING_REQUIRE,
                   "one parser for both");

    if (!strcmp(value, "auto"))
        *mode = MF_CLONE_AUTO;
    else if (!strcmp(value, "off"))
        *mode = MF_CLONE_OFF;
    else if (!strcmp(value, "require"))
        *mode = MF_CLONE_REQUIRE;
    else
        return usage_error(out, "--%s: '%.64s' is none of off, auto, require", name, value);
    return 0;
}

static int set_placement(struct mf_cmdline *out, const char *value)
{
    if (!strcmp(value, "auto"))
        out->opts.placement = MF_PLACEMENT_AUTO;
    else if (!strcmp(value, "pinned"))
        out->opts.placement = MF_PLACEMENT_PINNED;
    else if (!strcmp(value, "free"))
        out->opts.placement = MF_PLACEMENT_FREE;
    else
        return usage_error(out, "--placement: '%.64s' is none of auto, pinned, free", value);
    return 0;
}

static int add_mount_options(struct mf_cmdline *out, const char *value)
{
    size_t used = strlen(out->options), more = strlen(value);

    bool comma = used && more;

    if (used + comma + more >= sizeof(out->options))
        return usage_error(out, "the mount options are longer than %zu bytes", sizeof(out->options) - 1);
    if (comma)
        out->options[used++] = ',';
    memcpy(out->options + used, value, more + 1);
    return 0;
}

static int session_cmdline_apply(struct mf_cmdline *out, enum what what, const char *value)
{
    switch (what) {
    case READERS: return set_readers(out, value);
    case CLONE: return session_cmdline_set_mode(out, "clone", value, &out->opts.clone_fd);
    case URING: return session_cmdline_set_mode(out, "uring", value, &out->opts.uring);
    case PLACEMENT: return set_placement(out, value);
    case MOUNT_OPTIONS: return add_mount_options(out, value);
    case DEBUG: out->opts.flags |= MF_OPT_DEBUG; return 0;
    case HELP: out->show_help = 1; return 0;
    }
    return 0;
}

static int unknown_switch(struct mf_cmdline *out, const char *arg, const char *name, size_t len)
{
    char word[33] = "";
    unsigned best = 3;
    const char *near = NULL;

    if (len < sizeof(word))
        memcpy(word, name, len);
    for (size_t i = 0; i < MF__ARRAY_SIZE(switches) && word[0] && word[1]; i++) {
        unsigned d = mf__edit_distance(word, switches[i].name);

        if (d < best) {
            best = d;
            near = switches[i].name;
        }
    }
    if (near)
        return usage_error(out, "unknown option '%.64s'; did you mean '%s%s'? See --help", arg, near[1] ? "--" : "-",
                           near);
    return usage_error(out, "unknown option '%.64s'; see --help (mount options go behind -o)", arg);
}

/* "-o" may have its value right behind it, as in "-oro,noatime". */
static bool is_joined_o(const char *arg)
{
    return arg[0] == '-' && arg[1] == 'o' && arg[2] && arg[2] != '=';
}

static int take_switch(struct parser *p, const char *arg)
{
    const char *name = arg + (arg[1] == '-' ? 2 : 1), *value = NULL;
    size_t len = strcspn(name, "=");

    for (size_t i = 0; i < MF__ARRAY_SIZE(switches); i++) {
        if (strlen(switches[i].name) != len || strncmp(switches[i].name, name, len))
            continue;
        if (name[len])
            value = name + len + 1;
        if (value && !switches[i].value)
            return usage_error(p->out, "option '%.*s' takes no value", (int)(name + len - arg), arg);
        if (!value && switches[i].value) {
            if (p->at + 1 >= p->argc)
                return usage_error(p->out, "option '%.64s' needs a value: %.64s %s", arg, arg, switches[i].value);
            value = p->argv[++p->at];
        }
        return session_cmdline_apply(p->out, switches[i].what, value);
    }
    if (is_joined_o(arg))
        return add_mount_options(p->out, arg + 2);
    return unknown_switch(p->out, arg, name, len);
}

static int take_positional(struct parser *p, const char *arg)
{
    int wanted = p->wants_source ? 2 : 1;

    if (p->positionals == wanted)
        return usage_error(p->out, "unexpected argument '%.64s': the mount point is '%.64s'", arg, p->out->mountpoint);
    if (!*arg)
        return usage_error(p->out, "the %s is empty", p->positionals + 1 == wanted ? "mount point" : "source");
    if (++p->positionals == wanted)
        p->out->mountpoint = arg;
    else
        p->out->source = arg;
    return 0;
}

/* Wrong mount options are told before anything else happens; and who may look, the session enforces too. */
static int check_mount_options(struct mf_cmdline *out)
{
    struct mf_error err = { .size = sizeof(err) };
    struct mf__mount_opts parsed;

    if (mf__mount_opts_parse(out->options, &parsed, &err))
        return usage_error(out, "%s", err.text);
    if (parsed.allow_other)
        out->opts.acl = MF_ACL_ALL;
    else if (parsed.allow_root)
        out->opts.acl = MF_ACL_ROOT_AND_OWNER;
    out->opts.mount_options = out->options[0] ? out->options : NULL;
    return 0;
}

int mf_cmdline_parse(int argc, char **argv, int wants_source, struct mf_cmdline *out)
{
    struct parser p = { .argc = argc, .at = 1, .argv = argv, .wants_source = wants_source != 0, .out = out };
    const char *program = program_name(argc, argv);
    uint32_t size = out->size ? out->size : sizeof(*out);
    bool options_end = false;
    int rc = 0;

    if (size < sizeof(*out))
        return -EINVAL;
    memset(out, 0, sizeof(*out));
    out->size = size;
    out->opts.size = sizeof(out->opts);
    for (; p.at < argc && !rc && !out->show_help; p.at++) {
        const char *arg = argv[p.at];

        if (!options_end && !strcmp(arg, "--"))
            options_end = true;
        else if (!options_end && arg[0] == '-' && arg[1])
            rc = take_switch(&p, arg);
        else
            rc = take_positional(&p, arg);
    }
    if (!rc && out->show_help)
        write_help(out, program, p.wants_source);
    else if (!rc && !out->mountpoint)
        rc = usage_error(out, "the %s is missing: %.100s %sMOUNTPOINT [options]; see --help",
                         p.wants_source && !out->source ? "source" : "mount point", program,
                         p.wants_source ? "SOURCE " : "");
    else if (!rc)
        rc = check_mount_options(out);
    return rc;
}

/* ---- main() ---------------------------------------------------------------------------------------- */

/*
 * The session handles signals while it runs. Before that, one that ended the program between mounting and
 * running would leave a dead mount behind, so it is kept until there is something to stop.
 */
static struct mf_session *_Atomic early_session;
static _Atomic int early_signal;
static const int early_signals[] = { SIGINT, SIGTERM, SIGHUP };

static void on_early_signal(int sig)
{
    int saved = errno;
    struct mf_session *s = atomic_load(&early_session);

    atomic_store(&early_signal, sig);
    if (s)
        mf_session_stop(s);
    errno = saved;
}

static void catch_early(struct sigaction *previous)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_early_signal;
    act.sa_flags = SA_RESTART;
    atomic_store(&early_signal, 0);
    for (size_t i = 0; i < MF__ARRAY_SIZE(early_signals); i++) {
        sigaction(early_signals[i], NULL, &previous[i]);
        if (previous[i].sa_handler != SIG_IGN) /* nohup */
            sigaction(early_signals[i], &act, NULL);
    }
}

static void catch_no_more(const struct sigaction *previous)
{
    for (size_t i = 0; i < MF__ARRAY_SIZE(early_signals); i++)
        sigaction(early_signals[i], &previous[i], NULL);
    atomic_store(&early_session, NULL);
}

static int complain(const char *program, const char *text)
{
    fprintf(stderr, "%s: %s\n", program, text);
    return EXIT_FAILED;
}

/* Mount, serve, unmount: the exit status. */
static int session_cmdline_serve(const char *program, struct mf_session *s, const char *mountpoint)
{
    struct mf_error err = { .size = sizeof(err) };
    struct sigaction previous[MF__ARRAY_SIZE(early_signals)];
    int rc;

    catch_early(previous);
    rc = mf_session_mount(s, mountpoint, &err);
    if (rc < 0) {
        catch_no_more(previous);
        return complain(program, err.text[0] ? err.text : mf__strerror(rc));
    }
    atomic_store(&early_session, s);
    if (!atomic_load(&early_signal))
        rc = mf_session_run(s);
    else
        mf_session_unmount(s);
    catch_no_more(previous);
    if (rc < 0)
        return complain(program, mf__strerror(rc));
    return EXIT_CLEAN;
}

int mf_main(int argc, char **argv, const struct mf_ops *ops, void *user)
{
    const char *program = program_name(argc, argv);
    struct mf_error err = { .size = sizeof(err) };
    struct mf_cmdline line = { .size = sizeof(line) };
    struct mf_session *s;
    int rc = mf_cmdline_parse(argc, argv, 0, &line);

    if (rc < 0) {
        complain(program, line.text);
        return EXIT_USAGE;
    }
    if (line.show_help) {
        fputs(line.text, stdout);
        return EXIT_CLEAN;
    }
    line.opts.flags |= MF_OPT_SIGNALS;
    rc = mf_session_new(ops, user, &line.opts, &s, &err);
    if (rc < 0)
        return complain(program, err.text[0] ? err.text : mf__strerror(rc));
    rc = session_cmdline_serve(program, s, line.mountpoint);
    mf_session_free(s);
    return rc;
}
#undef EXIT_CLEAN
#undef EXIT_FAILED
#undef EXIT_USAGE

/* ==== core/session/crew.c ==== */
/* SPDX-License-Identifier: MIT */
/* crew.c - who receives: joining, parking and leaving a crew. */


/* More than CPUs would only take turns while handlers return at once, and be woken for it: 8 on 2 serve a quarter less. */
static uint32_t one_per_cpu(const struct mf_session *s)
{
    uint32_t target = mf__reader_target(s);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return cpus > 0 && target > (uint32_t)cpus ? (uint32_t)cpus : target;
}

/* Readers that are there for good. The device beside rings carries FORGET and INTERRUPT only. */
static uint32_t device_base(const struct mf_session *s)
{
    if (s->ring_count || (s->hooks.flags & MF_UPCALL_EXCLUSIVE))
        return 1;
    return s->one_per_cpu;
}

/*
 * The same by how they are placed. Those that exclude each other are worth their while side by side where they yield: the
 * right one has most to do. Beside a client that copies a stream one does as well as two, who would take turns with it
 * and with each other.
 */
static uint32_t placed_base(const struct mf_session *s, uint32_t mode)
{
    switch (mode) {
    case MF__PLACE_YIELDING: return s->one_per_cpu;
    case MF__PLACE_APART: return 1;
    default: return device_base(s);
    }
}

void mf__crews_place(struct mf_session *s, uint32_t before, uint32_t mode)
{
    struct mf__crew *device = &s->crews[0];

    if (!s->place.on_device)
        return;
    /* External readers have their own part in it. */
    atomic_fetch_add(&device->base, placed_base(s, mode) - placed_base(s, before));
    if (mode == MF__PLACE_APART)
        mf__crew_shrink(s, device, atomic_load(&device->base));
}

/* Does this one receive on the device, or will it soon? */
static bool serves_device(struct mf__reader *r)
{
    uint32_t state = atomic_load(&r->state);

    return atomic_load(&r->crew) == &r->session->crews[0] && !mf__reader_stuck(r) &&
           (state == MF__READER_RECEIVING || state == MF__READER_BUSY);
}

/*
 * More on the CPU that waits least would bring nothing: they would take the requests of the other CPU's clients, too,
 * since they are there first (measured beside handlers that sleep: a fifth fewer calls of the others).
 */
void mf__crew_spread(struct mf_session *s)
{
    struct mf__reader *spare[MF__MAX_READERS];
    bool served[MF__MAX_READERS] = { false };
    uint32_t spares = 0;

    mf__door_free_stuck(s);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        int32_t home = atomic_load(&r->home);

        if (home < 0 || !serves_device(r))
            continue;
        if (served[home])
            spare[spares++] = r;
        served[home] = true;
    }
    for (uint32_t cpu = 0; cpu < s->one_per_cpu && spares; cpu++) {
        if (served[cpu])
            continue;
        atomic_store(&spare[--spares]->home, (int32_t)cpu);
        if (atomic_load(&spare[spares]->state) == MF__READER_RECEIVING)
            mf__kick(spare[spares]);
    }
    pthread_mutex_unlock(&s->lock);
}

static bool receives(struct mf__reader *r, const struct mf__crew *c)
{
    return atomic_load(&r->crew) == c && atomic_load(&r->state) == MF__READER_RECEIVING && !mf__reader_apart(r);
}

/* So many of the members that wait for requests look whether they still should. */
static void recall(struct mf_session *s, const struct mf__crew *c, uint32_t count)
{
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count) && count; i++) {
        if (receives(s->readers[i], c)) {
            mf__kick(s->readers[i]);
            count--;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

void mf__crew_recall_unseated(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (!receives(r, &s->crews[0]) || atomic_load(&r->seated))
            continue;
        pthread_mutex_lock(&s->lock);
        if (receives(r, &s->crews[0]))
            mf__kick(r);
        pthread_mutex_unlock(&s->lock);
    }
}

void mf__crew_shrink(struct mf_session *s, struct mf__crew *c, uint32_t limit)
{
    uint32_t members = atomic_load(&c->members);

    if (limit >= members)
        return;
    atomic_store(&c->limit, limit);
    mf__count(&s->shrinks, 1);
    mf__count(&c->shrinks, 1);
    if (!c->ring)
        mf__door_tell(s);
    recall(s, c, members - limit);
}

static void crew_init(const struct mf_session *s, struct mf__crew *c, struct mf__channel *ring, uint32_t base)
{
    c->ring = ring;
    c->cpu = -1;
    c->base = base;
    c->most = s->opts.readers ? s->opts.readers : MF__AUTO_READERS;
    c->window = MF__CREW_WINDOW;
    c->least_free = UINT32_MAX;
    c->slow_gap = UINT32_MAX;
    atomic_init(&c->members, 0);
    atomic_init(&c->limit, base);
}

/* A ring of one queue serves the clients of one CPU: there its readers belong. */
static int32_t ring_cpu(const struct mf_session *s, uint32_t ring)
{
    if (s->opts.placement == MF_PLACEMENT_FREE || s->ring_count != s->ring_queues)
        return -1;
    return (int32_t)ring;
}

/* Readers of the device share the CPUs out if they are told to, or yield there: see placement.c. */
int32_t mf__crew_cpu(const struct mf__reader *r, const struct mf__crew *c)
{
    long cpus;

    if (c->ring || (r->session->opts.placement != MF_PLACEMENT_PINNED && !r->session->place.on_device))
        return c->cpu;
    if (atomic_load(&r->seated))
        return atomic_load(&r->home); /* the seat's */
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus > 0 ? (int32_t)(r->index % (uint32_t)cpus) : -1;
}

/*
 * So many readers were asked for, so many handlers may run at once, whatever the queue: queues do not take over each
 * other's requests, so each ring may come to have that many.
 */
static uint32_t reader_limit(const struct mf_session *s, uint32_t total)
{
    uint32_t limit = s->opts.readers ? s->opts.readers * s->crew_count : MF__AUTO_READERS;

    if (limit > MF__MAX_READERS)
        limit = MF__MAX_READERS;
    return limit > total ? limit : total;
}

/* By the program's first thread: the one that calls may itself have been bound. */
static void note_allowed(struct mf_session *s)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    if (sched_getaffinity(getpid(), sizeof(s->allowed), &s->allowed) < 0)
        memset(&s->allowed, 0xff, sizeof(s->allowed));
#else
    (void)s;
#endif
}

int mf__crews_make(struct mf_session *s)
{
    uint32_t count = 1 + s->ring_count;
    uint32_t total = mf__reader_target(s);
    uint32_t reader = 0;
    int rc;

    s->crews = calloc(count, sizeof(*s->crews));
    if (!s->crews)
        return -ENOMEM;
    s->crew_count = count;
    note_allowed(s);
    s->one_per_cpu = one_per_cpu(s);
    crew_init(s, &s->crews[0], NULL, device_base(s));
    for (uint32_t i = 0; i < s->ring_count; i++) {
        crew_init(s, &s->crews[1 + i], s->rings[i], 1);
        s->crews[1 + i].cpu = ring_cpu(s, i);
    }
    if (total < s->crews[0].base + s->ring_count)
        total = s->crews[0].base + s->ring_count;
    rc = mf__readers_make(s, total);
    for (uint32_t c = 0; rc == 0 && c < count; c++) {
        for (uint32_t i = 0; i < s->crews[c].base; i++)
            atomic_store(&s->readers[reader++]->crew, &s->crews[c]);
        atomic_store(&s->crews[c].members, s->crews[c].base);
    }
    s->place.on_device = mf__placement_of_device(s);
    s->takes_turns = (s->hooks.flags & MF_UPCALL_EXCLUSIVE) && total > 1 && sysconf(_SC_NPROCESSORS_ONLN) > 1;
    s->reader_limit = reader_limit(s, total);
    s->may_grow = s->reader_limit > total || total > reader;
    s->door.used = s->may_grow && !s->ring_count;
    atomic_store(&s->door.shut, s->door.used);
    return rc;
}

/* For a reader that is in no crew; the lock is held. */
static void join_device(struct mf_session *s, struct mf__reader *r)
{
    struct mf__crew *device = &s->crews[0];

    atomic_fetch_add(&device->limit, 1);
    atomic_fetch_add(&device->members, 1);
    atomic_store(&r->crew, device);
}

void mf__crews_widen(struct mf_session *s, struct mf__reader *r)
{
    atomic_store(&s->serialize, false);
    for (uint32_t i = 0; i < s->crew_count; i++)
        s->crews[i].most++;
    s->reader_limit = s->reader_limit + s->crew_count < MF__MAX_READERS ? s->reader_limit + s->crew_count
                                                                        : MF__MAX_READERS;
    if (s->ring_count)
        return; /* it waits until a ring has need of it */
    /* It joins the device's crew for good: the caller knows that it is needed. */
    atomic_fetch_add(&s->crews[0].base, 1);
    join_device(s, r);
}

void mf__crews_free(struct mf_session *s)
{
    free(s->crews);
    s->crews = NULL;
    s->crew_count = 0;
}

static void settle_on_cpu(struct mf__reader *r, int32_t cpu)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    const cpu_set_t *allowed = &r->session->allowed;
    cpu_set_t set;

    if (cpu == r->cpu)
        return;
    CPU_ZERO(&set);
    if (cpu >= 0)
        CPU_SET((unsigned)cpu, &set);
    /* An offline or forbidden CPU: then the thread stays where it may run. */
    (void)sched_setaffinity(0, sizeof(set), cpu >= 0 && CPU_ISSET((unsigned)cpu, allowed) ? &set : allowed);
    r->cpu = cpu;
#else
    (void)r;
    (void)cpu;
#endif
}

static bool surplus(struct mf__crew *c)
{
    uint32_t members = atomic_load_explicit(&c->members, memory_order_relaxed);

    while (members > atomic_load_explicit(&c->limit, memory_order_relaxed)) {
        if (atomic_compare_exchange_weak(&c->members, &members, members - 1))
            return true;
    }
    return false;
}

void mf__reader_flush(struct mf__reader *r)
{
    struct mf__channel *ch = atomic_load_explicit(&r->rx, memory_order_relaxed);

    mf__leave_language(r);
    if (ch != r->ch)
        mf__ring_flush(ch, atomic_load_explicit(&r->own, memory_order_relaxed));
}

static void give_own(struct mf__reader *r)
{
    struct mf__own_ring *own = atomic_exchange(&r->own, NULL);

    if (own)
        mf__own_ring_give(own);
}

/* One that cannot be had is done without, until the reader comes to another crew. */
MF__COLD static void take_own(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf__own_ring *own;

    r->no_own = mf__ring_take_own(c->ring, &own) < 0;
    if (!r->no_own)
        atomic_store(&r->own, own);
}

static bool needs_own(const struct mf__reader *r, const struct mf__crew *c)
{
    return c->ring && atomic_load_explicit(&c->ring->calling, memory_order_relaxed) == MF__OWN_RINGS &&
           !atomic_load_explicit(&r->own, memory_order_relaxed) && !r->no_own;
}

static struct mf__crew *park(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    mf__reader_flush(r);
    mf__door_leave(r);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    give_own(r);
    r->no_own = false;
    pthread_mutex_lock(&s->lock);
    atomic_store(&r->crew, NULL);
    atomic_store(&r->state, MF__READER_PARKED);
    while (!atomic_load(&r->crew) && !atomic_load(&s->stop))
        pthread_cond_wait(&s->changed, &s->lock);
    atomic_store(&r->state, MF__READER_BUSY);
    pthread_mutex_unlock(&s->lock);
    pthread_setcancelstate(cancel, NULL);
    return atomic_load(&r->crew);
}

/* Nothing of what decides where and how it runs has changed. */
static bool is_settled(const struct mf__reader *r, const struct mf__crew *c)
{
    return r->settled == c && r->settled_home == atomic_load_explicit(&r->home, memory_order_relaxed) &&
           r->settled_mode == atomic_load_explicit(&r->session->place_mode, memory_order_relaxed) &&
           !atomic_load_explicit(&r->freed, memory_order_relaxed);
}

/* Before it is acted upon: should anything change meanwhile, the next look finds that out. */
static void note_settled(struct mf__reader *r, struct mf__crew *c)
{
    if (r->settled != c)
        atomic_store(&r->home, mf__crew_cpu(r, c));
    r->settled = c;
    r->settled_mode = atomic_load(&r->session->place_mode);
    r->settled_home = atomic_load(&r->home);
}

/* The crew that it serves then, which is another one if it may not run as this one's do; NULL: the session stops. */
static struct mf__crew *session_crew_settle(struct mf__reader *r, struct mf__crew *c)
{
    mf__reader_flush(r);
    note_settled(r, c);
    mf__take_back(r);
    settle_on_cpu(r, mf__placement_unbound(r->session, c) ? -1 : atomic_load(&r->home));
    while (c && !mf__placement_apply(r, c)) {
        /* The monitor sees a crew that is too small, and takes a thread that may run as it should. */
        atomic_fetch_sub(&c->limit, 1);
        atomic_fetch_sub(&c->members, 1);
        mf__monitor_wake(r->session);
        c = park(r);
    }
    return c;
}

static bool needs_seat(const struct mf__reader *r, const struct mf__crew *c)
{
    return !c->ring && atomic_load_explicit(&r->session->door.shut, memory_order_relaxed) &&
           !atomic_load_explicit(&r->seated, memory_order_relaxed);
}

/* The crew that it serves then; NULL: the session stops. */
MF__COLD static struct mf__crew *wait_for_seat(struct mf__reader *r, struct mf__crew *c)
{
    if (r->settled != c)
        atomic_store(&r->home, mf__crew_cpu(r, c)); /* unless somebody sits there */
    while (c && needs_seat(r, c) && !atomic_load(&r->session->stop)) {
        mf__door_wait(r, c);
        if (surplus(c))
            c = park(r);
    }
    return atomic_load(&r->session->stop) ? NULL : c;
}

struct mf__channel *mf__crew_channel(struct mf__reader *r)
{
    struct mf__crew *c = atomic_load_explicit(&r->crew, memory_order_relaxed);

    if (!c || (!mf__reader_apart(r) && surplus(c)))
        c = park(r);
    if (c && needs_seat(r, c))
        c = wait_for_seat(r, c);
    if (c && !is_settled(r, c))
        c = session_crew_settle(r, c);
    if (!c)
        return NULL;
    if (needs_own(r, c))
        take_own(r, c);
    return c->ring ? c->ring : r->ch;
}

void mf__crew_leave(struct mf__reader *r)
{
    struct mf__crew *c = atomic_load(&r->crew);

    mf__door_leave(r);
    give_own(r);
    atomic_store(&r->crew, NULL); /* nobody else changes it while it is set */
    if (c)
        atomic_fetch_sub(&c->members, 1);
}

void mf__crew_fall_back(struct mf__reader *r, int error)
{
    struct mf_session *s = r->session;
    struct mf__crew *c = atomic_load(&r->crew);

    if (c && c->ring)
        atomic_store(&c->base, 0); /* else the monitor would send one after the other here */
    mf__crew_leave(r);
    pthread_mutex_lock(&s->lock);
    if (s->terms.transport == MF_TRANSPORT_URING) {
        s->terms.transport = s->channels[0]->ops->kind;
        snprintf(s->transport_reason, sizeof(s->transport_reason), "the kernel refused the ring's entries: %s",
                 mf__strerror(-error));
        mf__logf(&s->log, MF_LOG_WARNING, "%s; requests come on the device", s->transport_reason);
    }
    join_device(s, r);
    pthread_mutex_unlock(&s->lock);
}

/* ==== core/session/dispatch.c ==== */
/* SPDX-License-Identifier: MIT */
/* dispatch.c - from a received message to the handler and back: decoding, access, answers given in C. */


#define TURN_SPINS 1000u /* some ten microseconds */
#define TURN_PASSES_MAX 64u

/* Nobody answers for these within the filesystem's code. */
static bool may_pass(const struct mf_session *s, const struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;

    if (s->terms.acl == MF_ACL_ALL || !(slot->row->props & MF__OPC_ACL) || hdr->uid == s->terms.owner_uid)
        return true;
    if (s->terms.acl == MF_ACL_ROOT_AND_OWNER && hdr->uid == 0)
        return true;
    /* The kernel's own flush of times, in nobody's name. */
    return hdr->opcode == FUSE_SETATTR && hdr->pid == 0;
}

MF__COLD static void forgotten_answer(struct mf__slot *slot)
{
    mf__count(&slot->reader->stats.forgotten, 1);
    mf__log_limited(slot->reader->session, MF_LOG_ERROR, "%s of node %llu: the handler returned without an answer",
                    slot->row->name, (unsigned long long)slot->call.node);
    mf__send_error(slot, -EIO);
}

/* The handler has returned: the slot is the reader's again, now or when somebody else's answer is out. */
static void session_dispatch_settle(struct mf__slot *slot, bool kept)
{
    if (slot->row->reply == MF__REPLY_NEVER)
        atomic_store_explicit(&slot->unique, 0, memory_order_relaxed);
    else if (!slot->inside && !kept && mf__token_claim(mf__slot_token(slot)) == 0)
        forgotten_answer(slot);
    else if (!slot->inside && !(atomic_fetch_or(&slot->left, MF__LEFT_HANDLER) & MF__LEFT_ANSWERER))
        return; /* whoever answers gives it back */
    mf__slot_recycle(slot);
}

static void answer_error(struct mf__slot *slot, int error)
{
    if (slot->row->reply != MF__REPLY_NEVER && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, error);
    session_dispatch_settle(slot, false);
}

/*
 * Handlers that exclude each other by a lock of their language: a reader that finds the lock taken would be put to
 * sleep and woken, which costs more than the few microseconds for which most handlers keep it. So it waits for its
 * turn here, awake, and goes on without one when that takes too long: then the handler waits for something else. Where
 * handlers often do, so do these spins come to nothing, and are left out for a while.
 */
static void take_turn(struct mf_session *s, uint32_t me)
{
    uint32_t pass = atomic_load_explicit(&s->turn_pass, memory_order_relaxed), none = 0;

    for (uint32_t i = 0; pass == 0 && i < TURN_SPINS; i++) {
        if (atomic_load_explicit(&s->turn, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_weak_explicit(&s->turn, &none, me, memory_order_acquire, memory_order_relaxed)) {
            if (i)
                atomic_store_explicit(&s->turn_passes, 0, memory_order_relaxed);
            return;
        }
        none = 0;
        MF__RELAX();
    }
    if (pass == 0) { /* in vain: so many requests do not try it, more each time in a row */
        pass = atomic_load_explicit(&s->turn_passes, memory_order_relaxed) * 2 + 1;
        pass = pass < TURN_PASSES_MAX ? pass : TURN_PASSES_MAX;
        atomic_store_explicit(&s->turn_passes, pass, memory_order_relaxed);
    }
    atomic_store_explicit(&s->turn_pass, pass - 1, memory_order_relaxed);
    atomic_store_explicit(&s->turn, me, memory_order_relaxed); /* who waits has no turn: the next need not spin */
}

/* Where they wait often whoever has the turn is asleep with it. */
static bool turns_are_short(const struct mf_session *s, const struct mf__slot *slot)
{
    return !slot->io.own && !mf__door_is_open(&s->door);
}

static void end_turn(struct mf_session *s, uint32_t me)
{
    atomic_compare_exchange_strong_explicit(&s->turn, &me, 0, memory_order_release, memory_order_relaxed);
}

/* Will the reader enter the language again before it lets anything else run? */
static bool goes_on(const struct mf__reader *r)
{
    struct mf__channel *ch = atomic_load_explicit(&r->rx, memory_order_relaxed);

    return r->session->hooks.leave && ch != r->ch && mf__ring_has_more(ch);
}

static int32_t run_handler(struct mf_session *s, struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;
    uint32_t me = r->index + 1;
    bool alone = atomic_load_explicit(&s->serialize, memory_order_relaxed);
    int32_t rc;

    if (alone)
        pthread_mutex_lock(&s->serial);
    if (alone && atomic_load(&s->abandoned)) { /* it is over: the handler before this one never came back in time */
        pthread_mutex_unlock(&s->serial);
        return -ENOTCONN;
    }
    if (s->takes_turns && !r->entered && turns_are_short(s, slot))
        take_turn(s, me);
    rc = s->upcall(&slot->call, s->user);
    r->entered = s->takes_turns || s->hooks.leave;
    if (r->entered && (alone || !goes_on(r)))
        mf__leave_language(r);
    if (alone)
        pthread_mutex_unlock(&s->serial);
    return rc;
}

void mf__leave_language(struct mf__reader *r)
{
    struct mf_session *s = r->session;

    if (!r->entered)
        return;
    r->entered = false;
    if (s->hooks.leave)
        s->hooks.leave(s->hooks_user);
    if (s->takes_turns)
        end_turn(s, r->index + 1);
}

static void enter_handler(struct mf_session *s, struct mf__slot *slot)
{
    struct mf_call *call = &slot->call;
    int32_t rc;

    call->req = mf__slot_token(slot);
    call->buf = slot->io.body;
    call->buf_size = slot->io.body_size;
    call->again = (slot->io.msg.hdr.unique & FUSE_UNIQUE_RESEND) != 0;
    if (s->upcall != mf__typed_upcall) /* these answer by calls */
        mf__zero(&call->answer, sizeof(call->answer));
    atomic_store_explicit(&slot->journal.started, call->unique, memory_order_relaxed);
    slot->returned = false;
    rc = run_handler(s, slot);
    slot->returned = true;
    if (slot->received_ns)
        mf__count_handler(mf__self, slot);
    if (slot->row->reply == MF__REPLY_NEVER || rc == MF_ANSWERED || rc == MF_ANSWER_LATER) {
        session_dispatch_settle(slot, slot->kept || rc == MF_ANSWER_LATER);
        return;
    }
    if (mf__token_claim(call->req) == 0) {
        if (rc == 0)
            mf__send_answer(slot);
        else if (rc < 0 && rc > -512)
            mf__send_error(slot, rc);
        else
            mf__refuse(slot, "the handler returned a number that is no errno");
    }
    session_dispatch_settle(slot, slot->kept);
}

MF__COLD static void session_message(struct mf__reader *r, struct mf__slot *slot)
{
    switch (slot->io.msg.hdr.opcode) {
    case FUSE_INTERRUPT: mf__interrupt(r, slot); break;
    case FUSE_DESTROY: answer_error(slot, 0); return;
    case FUSE_INIT:
        answer_error(slot, -EIO); /* a second handshake: never */
        return;
    default: break;
    }
    session_dispatch_settle(slot, false);
}

MF__COLD static void malformed(struct mf__reader *r, struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;

    mf__count(&r->stats.malformed, 1);
    mf__log_limited(r->session, MF_LOG_ERROR, "reader %u: malformed message: opcode %u, length %u, id %llu", r->index,
                    hdr->opcode, hdr->len, (unsigned long long)hdr->unique);
    if (hdr->unique == 0) { /* too short to have an id: nobody can be answered */
        mf__count(&r->stats.no_reply, 1);
        mf__slot_recycle(slot);
        return;
    }
    answer_error(slot, -EIO);
}

MF__COLD static void trace(struct mf__reader *r, const struct mf__slot *slot)
{
    const struct mf_call *call = &slot->call;

    mf__logf(&r->session->log, MF_LOG_DEBUG, "reader %u fd %d: %s id %llu node %llu%s%s pid %u", r->index, r->ch->fd,
             slot->row->name ? slot->row->name : "?", (unsigned long long)call->unique, (unsigned long long)call->node,
             call->name ? " " : "", call->name ? call->name : "", call->pid);
}

/*
 * The answer to an operation that the filesystem lacks. The kernel takes ENOSYS for the whole connection: a
 * session that joined it must not say so of what the first one implements.
 */
MF__COLD static int refusal(const struct mf_session *s, const struct mf__opcode *row)
{
    if (row->props & MF__OPC_ALWAYS)
        return 0;
    return row->slot && (s->terms.implemented & (1ull << row->slot)) ? -EIO : -ENOSYS;
}

static void decoded(struct mf__reader *r, struct mf__slot *slot)
{
    struct mf_session *s = r->session;

    if (s->opts.flags & MF_OPT_DEBUG)
        trace(r, slot);
    if (!slot->row->slot || !(s->implemented & (1ull << slot->row->slot))) {
        answer_error(slot, refusal(s, slot->row));
        return;
    }
    if (!may_pass(s, slot)) {
        answer_error(slot, -EACCES);
        return;
    }
    enter_handler(s, slot);
}

void mf__dispatch(struct mf__reader *r, struct mf__slot *slot)
{
    struct mf__msg *msg = &slot->io.msg;
    int rc;

    slot->row = mf__opcode(msg->hdr.opcode);
    mf__slot_open(slot);
    atomic_store_explicit(&slot->unique, msg->hdr.unique, memory_order_release);
    r->current = slot;
    mf__count_request(r, slot);
    if (!slot->row->known) {
        /* Newer than this library, or garbage: a message that has an id is owed an answer either way. */
        if (msg->hdr.opcode == 0)
            malformed(r, slot);
        else
            answer_error(slot, -ENOSYS);
    } else if (slot->row->props & MF__OPC_SESSION) {
        session_message(r, slot);
    } else {
        rc = mf__decode(msg, r->session->terms.flags, &slot->call, &slot->one);
        if (rc < 0)
            malformed(r, slot);
        else
            decoded(r, slot);
    }
    r->current = NULL;
}
#undef TURN_PASSES_MAX
#undef TURN_SPINS

/* ==== core/session/door.c ==== */
/* SPDX-License-Identifier: MIT */
/* door.c - seats for readers of the device: who has one, who waits for one, who loses his. */


#define FEW_LEFT 4u                     /* seats: until then it says nothing that they were left behind */
#define OPEN_NS 64000000u               /* at first; a trial costs a few milliseconds where most handlers wait; */
#define OPEN_MAX_NS 1024000000u         /* doubled up to this each time that one fails, */
#define TRIAL_NS 64000000u              /* which is within this time */
#define EMPTY_NS (3 * MF__WATCH_NS / 2) /* that a seat is taken by one who waits, until somebody looks */
#define LOST_LIMIT 12u                  /* the share of all seats' time: what it saves to receive with few */
#define LEFT_OF (64u * MF__SLOW_LIMIT)  /* requests after which what was counted before counts half */

void mf__door_init(struct mf__door *door)
{
    pthread_mutex_init(&door->lock, NULL);
    mf__cond_init(&door->changed);
    door->counted_ns = mf__now_ns();
}

void mf__door_destroy(struct mf__door *door)
{
    pthread_cond_destroy(&door->changed);
    pthread_mutex_destroy(&door->lock);
}

/* ---- seats: with the lock held ------------------------------------------------------------------- */

/* Without a seat it belongs where it did before: else many might come to belong to one CPU. */
static void stand_up(struct mf_session *s, struct mf__reader *r)
{
    if (!atomic_exchange_explicit(&r->seated, false, memory_order_relaxed))
        return;
    atomic_store(&r->home, mf__crew_cpu(r, &s->crews[0]));
    s->door.seated--;
}

/* A seat is one on a CPU where readers have one each: the reader moves to where nobody sits. */
static void sit_down(struct mf_session *s, struct mf__reader *r)
{
    bool taken[MF__MAX_READERS] = { false };
    int32_t home = atomic_load(&r->home);
    uint32_t cpu = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        int32_t other = atomic_load(&s->readers[i]->home);

        if (other >= 0 && atomic_load(&s->readers[i]->seated))
            taken[other] = true;
    }
    while (cpu < s->one_per_cpu && taken[cpu])
        cpu++;
    if (home >= 0 && taken[home] && cpu < s->one_per_cpu)
        atomic_store(&r->home, (int32_t)cpu);
    atomic_store_explicit(&r->seated, true, memory_order_relaxed);
    s->door.seated++;
}

static uint64_t all_requests(struct mf_session *s)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        sum += atomic_load_explicit(&s->readers[i]->stats.requests, memory_order_relaxed);
    return sum;
}

/* Nobody has a seat then, and what was judged by is counted anew. */
static void turn(struct mf_session *s, bool shut)
{
    struct mf__door *d = &s->door;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        stand_up(s, s->readers[i]);
    d->since_ns = mf__now_ns();
    d->left = 0;
    d->served = all_requests(s);
    d->counted_ns = d->since_ns;
    d->vain_looks = 0;
    atomic_store(&d->shut, shut);
    pthread_cond_broadcast(&d->changed);
}

/* One alone would keep all others waiting each time that its handler does. */
static uint32_t seats(const struct mf__door *d, const struct mf__crew *c)
{
    uint32_t base = atomic_load(&c->base);

    return base == 1 && d->left ? 2 : base;
}

/* Do so many handlers wait that it had better be open? Of the requests, or for what the empty seats cost. */
static bool many_left(const struct mf_session *s, uint64_t served, uint64_t elapsed)
{
    const struct mf__door *d = &s->door;
    uint64_t lost = d->left * EMPTY_NS, had = elapsed * seats(d, &s->crews[0]);

    return d->left >= FEW_LEFT && (d->left * MF__SLOW_LIMIT > served || lost * LOST_LIMIT > had);
}

static void session_door_judge(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint64_t served = all_requests(s) - d->served, now = mf__now_ns(), elapsed = now - d->counted_ns;

    if (many_left(s, served, elapsed)) {
        bool failed = now - d->since_ns < TRIAL_NS;

        d->open_ns = !failed ? OPEN_NS : d->open_ns < OPEN_MAX_NS ? 2 * d->open_ns : OPEN_MAX_NS;
        mf__count(&d->opened, 1);
        turn(s, false);
    } else if (served > LEFT_OF) {
        d->served += served / 2;
        d->counted_ns += elapsed / 2;
        d->left /= 2;
    }
}

static void leave_behind(struct mf_session *s, struct mf__reader *r)
{
    stand_up(s, r);
    s->door.left++;
    mf__count(&s->door.blocked, 1);
    s->door.vain_looks = 0;
}

/* ---- the door ------------------------------------------------------------------------------------ */

/* Where that cannot be asked: yes. */
static bool request_waits(const struct mf_session *s)
{
    struct pollfd p = { .fd = s->channels[0]->fd, .events = POLLIN };

    return p.fd < 0 || poll(&p, 1, 0) > 0;
}

/* Whoever has a seat and is where he was at the last look loses it, if it is wanted. */
static void session_door_look(struct mf_session *s)
{
    bool wanted = false;

    s->door.vain_looks++;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint64_t requests = atomic_load_explicit(&r->stats.requests, memory_order_relaxed);

        if (!atomic_load(&r->seated))
            continue;
        if (requests == r->seen_requests && atomic_load(&r->state) == MF__READER_BUSY) {
            wanted = wanted || request_waits(s);
            if (wanted)
                leave_behind(s, r);
        }
        r->seen_requests = requests;
    }
    session_door_judge(s);
}

static bool full(struct mf_session *s, const struct mf__crew *c)
{
    return atomic_load(&s->door.shut) && s->door.seated >= seats(&s->door, c);
}

/* For a signal, or as the one who watches for a while. */
static void wait_once(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (d->watched || d->vain_looks >= MF__PATIENCE) {
        pthread_cond_wait(&d->changed, &d->lock);
        return;
    }
    d->watched = true;
    if (!mf__cond_wait(&d->changed, &d->lock, MF__WATCH_NS))
        session_door_look(s);
    d->watched = false;
}

void mf__door_wait(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf_session *s = r->session;
    struct mf__door *d = &s->door;
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&d->lock);
    atomic_store(&r->state, MF__READER_WAITING);
    d->waiting++;
    while (full(s, c) && !atomic_load(&s->stop) && atomic_load(&c->members) <= atomic_load(&c->limit))
        wait_once(s);
    d->waiting--;
    atomic_store(&r->state, MF__READER_BUSY);
    if (atomic_load(&d->shut) && !full(s, c))
        sit_down(s, r);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed); /* the next one watches */
    pthread_setcancelstate(cancel, NULL);
}

void mf__door_leave(struct mf__reader *r)
{
    struct mf__door *d = &r->session->door;

    if (!atomic_load(&r->seated))
        return;
    pthread_mutex_lock(&d->lock);
    stand_up(r->session, r);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
}

/* Without the lock: a reader that yields may be kept from its CPU with it. One that just begins to wait may miss it. */
void mf__door_tell(struct mf_session *s)
{
    pthread_cond_broadcast(&s->door.changed);
}

/* ---- the monitor's: whoever has the lock may be a reader that yields, and the next tick is soon --------- */

void mf__door_try(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (!d->used)
        return;
    if (!atomic_load(&d->shut) && mf__now_ns() - d->since_ns >= d->open_ns && pthread_mutex_trylock(&d->lock) == 0) {
        turn(s, true);
        pthread_mutex_unlock(&d->lock);
    }
    /* Those who received as it was shut, and at a later tick who was about to. */
    if (atomic_load(&d->shut))
        mf__crew_recall_unseated(s);
}

bool mf__door_admit(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    bool done = false;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return false;
    for (uint32_t i = 0; d->waiting && !done && i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        done = atomic_load(&r->seated) && atomic_load(&r->state) == MF__READER_BUSY;
        if (done)
            leave_behind(s, r);
    }
    session_door_judge(s);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
    return done;
}

void mf__door_unseat_held(struct mf_session *s)
{
    struct mf__door *d = &s->door;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (s->readers[i]->held && atomic_load(&s->readers[i]->seated))
            leave_behind(s, s->readers[i]);
    }
    session_door_judge(s);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_signal(&d->changed);
}

void mf__door_free_stuck(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint32_t before;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return;
    before = d->seated;
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (mf__reader_stuck(s->readers[i]))
            stand_up(s, s->readers[i]);
    }
    if (d->seated < before)
        pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

uint32_t mf__door_lacks(struct mf_session *s)
{
    struct mf__door *d = &s->door;
    uint32_t lacks = 0;

    if (!atomic_load(&d->shut) || pthread_mutex_trylock(&d->lock) != 0)
        return 0;
    session_door_judge(s);
    if (atomic_load(&d->shut) && d->left && !d->waiting)
        lacks = 1 + (uint32_t)(d->blocked - d->blocked_then);
    d->blocked_then = d->blocked;
    pthread_mutex_unlock(&d->lock);
    return lacks;
}
#undef EMPTY_NS
#undef FEW_LEFT
#undef LEFT_OF
#undef LOST_LIMIT
#undef OPEN_MAX_NS
#undef OPEN_NS
#undef TRIAL_NS

/* ==== core/session/inherit.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * inherit.c - threads and programs that handlers start shall not run like readers.
 *
 * A new thread or process has the scheduling class and the CPUs of the thread that made it. Readers that yield are in
 * SCHED_IDLE and bound to one CPU: a pool of workers that a handler makes at its first use, or a program that it runs,
 * would stay that way for good, and starve on a busy machine. There is no hook for that, so the monitor looks for such
 * heirs: among the threads when their number has changed, and among the children of each reader. Whatever is in
 * SCHED_IDLE on a single CPU, and is no reader, is taken for one. A reader whose handler goes on for longer is no reader
 * for that time, and runs like any thread; so do its heirs. Where the process may not leave SCHED_IDLE the first heir is
 * the last: readers stop yielding then.
 */
#include <dirent.h>
#include <sys/stat.h>


#if defined(__linux__) && !defined(MF_NO_LINUX)

#define SWEEP_LOOKS 64u /* the number of threads may be the same although they are others */

static bool is_heir(pid_t id)
{
    cpu_set_t set;

    return (sched_getscheduler(id) & ~SCHED_RESET_ON_FORK) == SCHED_IDLE &&
           sched_getaffinity(id, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1;
}

static bool set_free(const struct mf_session *s, pid_t id)
{
    struct sched_param param = { 0 };

    if (sched_setscheduler(id, SCHED_OTHER, &param) < 0)
        return false;
    (void)sched_setaffinity(id, sizeof(s->allowed), &s->allowed);
    return true;
}

static void free_heir(struct mf_session *s, pid_t id, const char *what)
{
    if (!is_heir(id))
        return;
    if (set_free(s, id)) {
        mf__logf(&s->log, MF_LOG_INFO, "%s %d, which a handler started, is scheduled like any other now", what,
                 (int)id);
        return;
    }
    (void)sched_setaffinity(id, sizeof(s->allowed), &s->allowed);
    if (!s->place.given_up) {
        s->place.given_up = true;
        mf__logf(&s->log, MF_LOG_WARNING,
                 "%s %d, which a handler started, stays in class SCHED_IDLE, which this process may not leave: readers "
                 "yield no more (the option placement=free keeps them from it at all)",
                 what, (int)id);
    }
}

static void free_threads(struct mf_session *s)
{
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        uint32_t tid = (uint32_t)strtoul(entry->d_name, NULL, 10);

        if (tid && !mf__registry_has_reader(tid))
            free_heir(s, (pid_t)tid, "thread");
    }
    if (dir)
        closedir(dir);
}

static void free_children(struct mf_session *s, struct mf__reader *r)
{
    char text[512], *at = text, *end;
    long pid;

    if (mf__task_children(r, text, sizeof(text)) < 0)
        return;
    for (; (pid = strtol(at, &end, 10)) > 0; at = end)
        free_heir(s, (pid_t)pid, "process");
}

bool mf__may_have_heirs(struct mf__reader *r)
{
    return atomic_load(&r->state) == MF__READER_BUSY && r->same_looks < 2;
}

bool mf__reader_stuck(struct mf__reader *r)
{
    return r->same_looks >= 2 && atomic_load(&r->state) == MF__READER_BUSY &&
           atomic_load(&r->stats.requests) == r->looked_requests;
}

void mf__free_reader(struct mf__reader *r)
{
    pid_t tid = (pid_t)atomic_load(&r->tid);

    if (tid && sched_getscheduler(tid) == SCHED_IDLE && set_free(r->session, tid))
        atomic_store(&r->freed, true);
}

/* In one handler since the last look? Where its thread may not leave SCHED_IDLE there is nothing to be done. */
static void free_long_handler(struct mf__reader *r)
{
    uint64_t requests = atomic_load(&r->stats.requests);
    bool same = atomic_load(&r->state) == MF__READER_BUSY && requests == r->looked_requests;

    r->looked_requests = requests;
    r->same_looks = same ? r->same_looks + 1 : 0;
    if (r->same_looks == 2)
        mf__free_reader(r);
}

void mf__free_heirs(struct mf_session *s)
{
    struct stat st;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        free_long_handler(s->readers[i]);
        free_children(s, s->readers[i]);
    }
    if (stat("/proc/self/task", &st) < 0)
        return;
    if (st.st_nlink == s->place.threads && ++s->place.sweep % SWEEP_LOOKS)
        return;
    s->place.threads = st.st_nlink;
    free_threads(s);
}

void mf__take_back(struct mf__reader *r)
{
    if (!atomic_load_explicit(&r->freed, memory_order_relaxed) || !atomic_exchange(&r->freed, false))
        return;
    r->cpu = -1;
    r->place_mode = MF__PLACE_PLAIN;
}

#else

bool mf__may_have_heirs(struct mf__reader *r)
{
    (void)r;
    return false;
}

bool mf__reader_stuck(struct mf__reader *r)
{
    (void)r;
    return false;
}

void mf__free_heirs(struct mf_session *s)
{
    (void)s;
}

void mf__take_back(struct mf__reader *r)
{
    (void)r;
}

#endif
#undef SWEEP_LOOKS

/* ==== core/session/interrupt.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * interrupt.c - a caller gave up.
 *
 * The INTERRUPT may be read by any reader, also before the reader of its target has noted the target's id.
 * Nothing is kept for that case: the kernel is asked to send it again (EAGAIN, on the descriptor that holds
 * the target; elsewhere that is ENOENT and harmless) until the target is found or is no longer pending. So
 * the hot path pays one store of the id, and shares nothing.
 */

struct target {
    uint64_t unique;
};

static int mark(struct mf__slot *slot, void *arg)
{
    const struct target *t = arg;
    struct mf_session *s = slot->reader->session;

    if (atomic_load_explicit(&slot->unique, memory_order_acquire) != t->unique)
        return 0;
    /* The id itself: should the slot serve another request by now, this says nothing about that one. */
    atomic_store(&slot->interrupted, t->unique);
    if (s->hooks.interrupted)
        s->hooks.interrupted(s, t->unique, s->hooks_user);
    return 1;
}

static int mark_in_session(struct mf_session *s, void *arg)
{
    return mf__slots_each(s, mark, arg);
}

static int ask_again(struct mf_session *s, void *arg)
{
    const struct target *t = arg;
    struct fuse_out_header again;
    int rc = 0;

    mf__put_header(&again, 0, -EAGAIN, t->unique | 1);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->channel_count && rc == 0; i++)
        rc = s->channels[i]->ops->write_raw(s->channels[i], &again, sizeof(again)) == 0;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void mf__interrupt(struct mf__reader *r, struct mf__slot *slot)
{
    struct target t;

    mf__count(&r->stats.interrupts, 1);
    if (mf__decode_interrupt(&slot->io.msg, &t.unique) < 0 || t.unique == 0) /* 0 is what a free slot has */
        return;
    if (!mf__registry_each(r->session, mark_in_session, &t))
        mf__registry_each(r->session, ask_again, &t);
}

/* ==== core/session/monitor.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * monitor.c - the thread that sees a crew with no member to receive, and helps.
 *
 * A crew needs help when at one look all of its members are in handlers, asleep: a handler that computes, or waits
 * for a CPU, would not get on faster with another reader beside it. Should it compute for long (its CPU time says so),
 * the crew gets one more all the same, so that a short request need not wait for the end of a long one. Where many
 * requests were served since the last look one such look says little, and two must agree.
 */


#define TICK_NS 1000000
#define FEW_PER_MEMBER 4u /* requests of a millisecond: handlers of 250 µs and more count as slow */
#define MANY 16u /* of a millisecond: another reader is not called before each, and answers may wait for each other */
#define RARE 256 /* one in so many */
#define OFTEN_GAP 192u   /* handlers that were timed between two that waited: then each reader has a ring of its own, */
#define SELDOM_GAP 2048u /* and after so many without one it has not: to answer several at once is worth as much */
#define MEAN_LOOKS 64    /* over which it is judged how many handlers wait */
#define LOOKS_BETWEEN 3u
#define QUIET_TICKS 32u  /* then the monitor sleeps */
#define WINDOW_MAX 8192u /* ticks */
#define FAST_TICKS 16u
#define THIN_TICKS 128u              /* a client that moves to another CPU may be back soon */
#define STEADY_TICK_NS (4 * TICK_NS) /* while no handler takes long, or nothing comes, */
#define FAST_TICK_NS (8 * TICK_NS)   /* and while many do not: the monitor's own turns would be felt */
#define BUSY_TICK_NS (16 * TICK_NS) /* likewise on a busy machine: each turn may cost whoever it interrupts his slice */
#define CALM_TICKS 64u              /* then the crew seems to be large enough */
#define COMPUTING_TICKS 50u
#define LATE_NS 2000000u /* after its sleep: the monitor waits for a CPU, or there is none to spare */
#define LONGEST_TICK_NS 999000000u

struct view {
    uint32_t members;
    uint32_t free;    /* not in handlers; */
    uint32_t waiting; /* of those, without a seat, */
    uint32_t coming;  /* and who will be there in a moment */
    uint32_t stuck;   /* of the device, while its readers are placed */
    uint32_t held;    /* of the device: asleep in one handler since the last look, and not stuck yet */
    uint32_t apart;   /* of a ring, who wait on their own */
    uint64_t requests, timed, slow;
    uint64_t served; /* since the last look */
    uint64_t rate;   /* of a tick */
};

static void session_monitor_look(struct mf_session *s, struct mf__crew *c, struct view *v)
{
    memset(v, 0, sizeof(*v));
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint32_t state = atomic_load(&r->state);
        bool apart = mf__reader_apart(r);

        if (atomic_load(&r->crew) != c)
            continue;
        v->members++;
        v->requests += atomic_load_explicit(&r->stats.requests, memory_order_relaxed);
        v->timed += atomic_load_explicit(&r->stats.timed, memory_order_relaxed);
        v->slow += atomic_load_explicit(&r->stats.slow, memory_order_relaxed);
        v->apart += apart;
        v->free += state != MF__READER_BUSY && !apart;
        v->waiting += state == MF__READER_WAITING;
        v->coming += state == MF__READER_NEW || state == MF__READER_PARKED;
        if (!c->ring && mf__reader_stuck(r))
            v->stuck++;
    }
}

/* In one and the same handler all the while: between two looks at it a reader may have gone to wait for requests. */
static bool waits_in_handler(struct mf__reader *r)
{
    uint64_t requests = atomic_load(&r->stats.requests);

    return atomic_load(&r->state) == MF__READER_BUSY && mf__task_sleeps(r) &&
           atomic_load(&r->state) == MF__READER_BUSY && atomic_load(&r->stats.requests) == requests;
}

/* Is one in a handler, and not asleep there? */
static bool one_computes(struct mf_session *s, struct mf__crew *c)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c && atomic_load(&r->state) == MF__READER_BUSY && !r->held && !mf__task_sleeps(r))
            return true;
    }
    return false;
}

static void forget_held(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        s->readers[i]->held = false;
}

/*
 * How many of the device's readers wait in one handler since the last look? While others serve so many requests that all
 * seems well, nothing else says that they are too few. One that slept there once is not asked again. Where handlers exclude
 * each other, and one computes, the others may be asleep for no other reason.
 */
static uint32_t session_monitor_count_held(struct mf_session *s, struct mf__crew *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint64_t requests = atomic_load(&r->stats.requests);
        bool same = requests == r->ticked_requests && atomic_load(&r->crew) == c;

        r->ticked_requests = requests;
        r->held = same && atomic_load(&r->state) == MF__READER_BUSY && !mf__reader_stuck(r) &&
                  (r->held || mf__task_sleeps(r));
        n += r->held;
    }
    if (n == 0 || !(s->hooks.flags & MF_UPCALL_EXCLUSIVE) || !one_computes(s, c))
        return n;
    forget_held(s);
    return 0;
}

/* None of a crew's members runs, waits for a CPU, or receives. */
static bool all_wait(struct mf_session *s, struct mf__crew *c)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c && atomic_load(&r->state) != MF__READER_WAITING && !mf__reader_apart(r) &&
            !waits_in_handler(r))
            return false;
    }
    return true;
}

static uint64_t time_on_cpu(struct mf_session *s, struct mf__crew *c)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->crew) == c)
            sum += mf__task_ran_ns(r);
    }
    return sum;
}

/* A parked reader; before others one that can do nothing but yield, where it may. Lock held. */
static struct mf__reader *parked(struct mf_session *s, const struct mf__crew *c)
{
    struct mf__reader *found = NULL;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        if (atomic_load(&r->state) != MF__READER_PARKED || atomic_load(&r->crew) || !mf__placement_fits(r, c))
            continue;
        if (atomic_load(&r->spent))
            return r;
        found = found ? found : r;
    }
    return found;
}

/* All readers are taken: a crew with members to spare gives one, which can be had at the next look. */
static void take_from_others(struct mf_session *s, struct mf__crew *poor)
{
    for (uint32_t i = 0; i < s->crew_count; i++) {
        struct mf__crew *c = &s->crews[i];
        struct view v;

        session_monitor_look(s, c, &v);
        if (c != poor && v.members > c->base && v.free > 1) {
            mf__crew_shrink(s, c, v.members - 1);
            return;
        }
    }
}

/* Who waits on a ring of his own may be there in vain for ever: he is not one of those that are meant to be enough. */
static uint32_t most_readers(struct mf_session *s)
{
    uint32_t most = s->reader_limit;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        most += mf__reader_apart(s->readers[i]);
    return most < MF__MAX_READERS ? most : MF__MAX_READERS;
}

/* A parked reader, or a new one, becomes a member. false: there is none at the moment. */
static bool session_monitor_grow(struct mf_session *s, struct mf__crew *c)
{
    struct mf__reader *r = NULL;
    bool fresh = false, full;

    pthread_mutex_lock(&s->lock);
    full = atomic_load(&c->members) >= c->most || atomic_load(&s->ending);
    if (!full)
        r = parked(s, c);
    if (!r && !full && atomic_load(&s->reader_count) < most_readers(s))
        fresh = mf__reader_add(s, c->ring == NULL, &r) == 0;
    if (r) {
        atomic_fetch_add(&c->limit, 1);
        atomic_fetch_add(&c->members, 1);
        atomic_store(&r->crew, c);
        mf__count(&s->growths, 1);
        mf__count(&c->growths, 1);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    if (!r && !full)
        take_from_others(s, c);
    if (r && fresh && mf__reader_spawn(r) < 0)
        mf__crew_leave(r);
    return r != NULL;
}

static void session_monitor_begin_window(struct mf__crew *c)
{
    c->ticks = 0;
    c->served = 0;
    c->least_free = UINT32_MAX;
}

/* Of the handlers that were timed of late next to none took long. */
static bool never_slow(const struct mf__crew *c)
{
    return c->slow_mean * RARE <= c->timed_mean;
}

/*
 * Have they done nothing but take turns? Handlers returned so fast that they must have; or those that return at all
 * did not wait, and which do not is known: of readers that yield on the device.
 */
static bool take_turns(const struct mf_session *s, const struct mf__crew *c, uint32_t members)
{
    bool yielding = s->place.on_device && atomic_load(&s->place_mode) == MF__PLACE_YIELDING;

    return c->served >= (uint64_t)FEW_PER_MEMBER * members * c->ticks || (yielding && never_slow(c));
}

/*
 * At the end of a window in which nobody had to help: is one member too many? Yes if two were always free, or if
 * all of them only took turns.
 */
static void review(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    uint32_t members = v->members, least = c->base + v->stuck + v->apart;
    uint32_t spare = c->least_free > 1 ? c->least_free - 1 : take_turns(s, c, members);

    c->taken = spare && members > least;
    if (c->taken)
        mf__crew_shrink(s, c, members - spare > least ? members - spare : least);
    if (c->window > MF__CREW_WINDOW)
        c->window -= c->window / 8;
    session_monitor_begin_window(c);
}

bool mf__handlers_wait(struct mf_session *s)
{
    struct view v;

    for (uint32_t i = 0; i < s->crew_count; i++) {
        if (!never_slow(&s->crews[i]))
            return true;
    }
    if (mf__door_is_open(&s->door))
        return true;
    session_monitor_look(s, &s->crews[0], &v);
    return v.members - v.stuck > s->one_per_cpu;
}

/* And many requests come. */
static bool fast(const struct mf__crew *c)
{
    return never_slow(c) && c->fast_ticks >= FAST_TICKS;
}

/*
 * Many requests were served, which may have been those of one client while others wait behind handlers that wait.
 * All asleep at one look says little then, and costs: so not at each, and twice.
 */
static uint32_t lacking_though_fast(struct mf_session *s, struct mf__crew *c)
{
    c->stuck_ticks = 0;
    if (fast(c) || ++c->busy_looks % LOOKS_BETWEEN)
        return 0;
    c->asleep_looks = all_wait(s, c) ? c->asleep_looks + 1 : 0;
    return c->asleep_looks > 1;
}

/*
 * Members beyond those that wait in handlers: as many as when all is quiet, and who is not needed waits at the door. Where
 * that is open he would receive with the others, who take time from each other: then one is enough.
 */
static uint32_t needed(const struct mf_session *s, const struct mf__crew *c, const struct view *v)
{
    uint32_t usual = c->base + v->stuck + v->apart;
    uint32_t at_least = (mf__door_is_open(&s->door) ? 1 : c->base) + v->stuck + v->held;

    return usual > at_least ? usual : at_least;
}

/* How many more members a crew should have now. */
static uint32_t lacking(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    uint32_t at_door = !c->ring && !v->coming ? mf__door_lacks(s) : 0;
    uint64_t ran;

    if (v->members < needed(s, c, v))
        return 1;
    if (at_door)
        return at_door;
    if (v->free > v->waiting || v->members == 0) {
        c->stuck_ticks = c->asleep_looks = 0;
        return 0;
    }
    if (v->rate >= (uint64_t)FEW_PER_MEMBER * v->members)
        return lacking_though_fast(s, c);
    if (all_wait(s, c)) /* doubling: twenty clients in waiting handlers are served after a few ticks */
        return (v->members + 1) / 2;
    ran = time_on_cpu(s, c);
    if (v->served || c->stuck_ticks++ == 0) {
        c->stuck_ticks = !v->served;
        c->ran_ns = ran;
        return 0;
    }
    if (c->stuck_ticks < COMPUTING_TICKS || ran - c->ran_ns < COMPUTING_TICKS * TICK_NS / 2)
        return 0;
    c->stuck_ticks = 0;
    return 1;
}

/* Since the last look; 0: nothing, or a member has gone with its count. */
static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* The mean of what a count grew by at each look. */
static void follow_mean(int64_t *mean, uint64_t *count, uint64_t now)
{
    int64_t off = (int64_t)grown(now, *count) * 1024 - *mean;

    *count = now;
    *mean += (off < 0 ? off - (MEAN_LOOKS - 1) : off) / MEAN_LOOKS; /* down to 0 */
}

/* Do handlers wait so often that each reader had better have a ring of its own? */
static void judge_gaps(struct mf__crew *c, const struct view *v)
{
    uint64_t timed = grown(v->timed, c->timed), slow = grown(v->slow, c->slow);

    if (slow) {
        c->often_slow = c->often_slow || slow > 1 || c->slow_gap < OFTEN_GAP;
        c->slow_gap = 0;
    } else if (c->slow_gap < SELDOM_GAP) {
        c->slow_gap += (uint32_t)(timed < SELDOM_GAP ? timed : SELDOM_GAP);
    } else {
        c->often_slow = false;
    }
}

/* Before which handlers readers of a ring call another one: where answers may not wait any more, those that do go out. */
static void judge_calling(struct mf__crew *c, bool many)
{
    enum mf__calling now = atomic_load(&c->ring->calling), wanted = now == MF__OWN_RINGS ? MF__CALL_SLOW : now;

    if ((c->often_slow && c->most > 1) || mf__ring_has_orphans(c->ring))
        wanted = MF__OWN_RINGS;
    else if (many || (c->thin_ticks >= THIN_TICKS && c->timed_mean))
        wanted = MF__CALL_SLOW;
    else if (c->thin_ticks >= THIN_TICKS)
        wanted = MF__CALL_ALWAYS;
    if (wanted == now)
        return;
    atomic_store(&c->ring->calling, wanted);
    c->ring->ops->wake(c->ring);
}

static void judge_speed(struct mf__crew *c, const struct view *v, uint32_t ticks)
{
    bool many = v->rate >= MANY, few_slow;

    judge_gaps(c, v);
    follow_mean(&c->timed_mean, &c->timed, v->timed);
    follow_mean(&c->slow_mean, &c->slow, v->slow);
    few_slow = c->slow_mean * MF__SLOW_LIMIT <= c->timed_mean;
    c->fast_ticks = many && few_slow ? c->fast_ticks + ticks : 0;
    c->thin_ticks = many ? 0 : c->thin_ticks + ticks;
    if (c->ring)
        judge_calling(c, many);
}

/* Nothing came, and somebody would take what comes; handlers return at once; they do, and few are called; the rest. */
enum found { QUIET, session_monitor_FAST, STEADY, OTHER };

static enum found session_monitor_judge(const struct mf__crew *c, const struct view *v)
{
    if (v->served == 0 && v->free > v->waiting)
        return QUIET;
    if (fast(c) && !c->thin_ticks && !v->held)
        return session_monitor_FAST;
    if (c->calm_ticks >= CALM_TICKS || (never_slow(c) && (c->timed_mean || v->free)))
        return STEADY;
    return OTHER;
}

/* One more receives: one who waits for a seat, or a new member. */
static bool reinforce(struct mf_session *s, struct mf__crew *c, const struct view *v)
{
    return v->waiting ? mf__door_admit(s) : session_monitor_grow(s, c);
}

static enum found session_monitor_watch(struct mf_session *s, struct mf__crew *c, uint32_t ticks)
{
    struct view v;
    uint32_t more;

    session_monitor_look(s, c, &v);
    if (c->ring)
        mf__ring_look(c->ring);
    else
        mf__door_try(s);
    if (!c->ring && (v.held = session_monitor_count_held(s, c)))
        mf__door_unseat_held(s);
    v.served = grown(v.requests, c->requests);
    v.rate = v.served / ticks;
    atomic_store_explicit(&c->rate, v.rate, memory_order_relaxed);
    c->requests = v.requests;
    judge_speed(c, &v, ticks);
    more = lacking(s, c, &v);
    c->calm_ticks = v.free && !more ? c->calm_ticks + ticks : 0;
    if (more) {
        while (more-- && reinforce(s, c, &v))
            continue;
        if (c->taken && c->ticks < c->window && c->window < WINDOW_MAX)
            c->window *= 2; /* it was taken away too early */
        c->taken = false;
        session_monitor_begin_window(c);
        return OTHER;
    }
    if (v.free < c->least_free)
        c->least_free = v.free;
    c->served += v.served;
    c->ticks += ticks;
    if (c->ticks >= c->window)
        review(s, c, &v);
    return session_monitor_judge(c, &v);
}

/* Somebody parked himself as the monitor went to sleep: nobody else would take his place. */
static bool understaffed(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->crew_count && !atomic_load(&s->ending); i++) {
        if (atomic_load(&s->crews[i].members) < atomic_load(&s->crews[i].base))
            return true;
    }
    return false;
}

/*
 * From now on nobody looks whether a reader that took a request, and called nobody for it, is long in its handler. One that
 * takes its first request later sees that the monitor sleeps.
 */
static void call_followers(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_call(s->rings[i]);
}

/*
 * Followers that watch may sleep, too: they see it at their next look. Nothing is held now, and nobody is to be woken for
 * it: one that yields and is kept waiting for its CPU, by others' clients, say, while it has next to nothing to do there,
 * is owed that time from then on. The scheduler would let it run after each request of its own clients for as long as
 * they go on, one request each time where there could be sixteen (32 clients did 0.8 of the calls that they do else).
 */
static void monitor_sleep(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++) {
        if (!mf__ring_has_orphans(s->rings[i]))
            atomic_store(&s->rings[i]->calling, MF__CALL_ALWAYS);
    }
    pthread_mutex_lock(&s->monitor_lock);
    atomic_store(&s->monitor_asleep, 1);
    call_followers(s);
    while (atomic_load(&s->monitor_asleep) && !atomic_load(&s->monitor_end) && !understaffed(s))
        pthread_cond_wait(&s->monitor_cond, &s->monitor_lock);
    atomic_store(&s->monitor_asleep, 0);
    pthread_mutex_unlock(&s->monitor_lock);
}

/*
 * Sleep for a tick. How much longer it took. A monitor that does not get to run leaves what little there is to the
 * readers, and looks less often.
 */
static uint64_t sleep_tick(uint64_t *tick_ns)
{
    struct timespec tick = { .tv_nsec = (long)*tick_ns };
    uint64_t start = mf__now_ns(), took;

    nanosleep(&tick, NULL);
    took = mf__now_ns() - start;
    took -= took < *tick_ns ? took : *tick_ns;
    if (took > LATE_NS)
        *tick_ns = 4 * took < LONGEST_TICK_NS ? 4 * took : LONGEST_TICK_NS;
    return took;
}

static uint64_t next_tick(const struct mf_session *s, enum found found)
{
    static const uint64_t tick_for[] = {
        [QUIET] = STEADY_TICK_NS, [session_monitor_FAST] = FAST_TICK_NS, [STEADY] = STEADY_TICK_NS, [OTHER] = TICK_NS
    };
    bool busy = atomic_load(&s->place_mode) == MF__PLACE_PLAIN && (found == session_monitor_FAST || found == STEADY);

    return busy ? BUSY_TICK_NS : tick_for[found];
}

static void *monitor_main(void *arg)
{
    struct mf_session *s = arg;
    uint64_t tick_ns = TICK_NS, last = mf__now_ns();
    uint32_t quiet = 0;

    mf__placement_start(s);
    while (!atomic_load(&s->monitor_end)) {
        uint64_t late = sleep_tick(&tick_ns), now = mf__now_ns();
        uint32_t ticks = now - last < 2 * TICK_NS ? 1 : (uint32_t)((now - last) / TICK_NS);
        enum found most = QUIET;

        last = now;
        mf__placement_look(s, now, late);
        for (uint32_t i = 0; i < s->crew_count; i++) {
            enum found found = session_monitor_watch(s, &s->crews[i], ticks);

            most = found > most ? found : most;
        }
        if (late <= LATE_NS)
            tick_ns = next_tick(s, most);
        quiet = most == QUIET ? quiet + ticks : 0;
        if (quiet >= QUIET_TICKS && mf__placement_may_sleep(s)) {
            monitor_sleep(s);
            mf__placement_resume(s);
            quiet = 0;
            tick_ns = TICK_NS;
            last = mf__now_ns();
        }
    }
    return NULL;
}

void mf__monitor_wake(struct mf_session *s)
{
    pthread_mutex_lock(&s->monitor_lock);
    atomic_store(&s->monitor_asleep, 0);
    pthread_mutex_unlock(&s->monitor_lock); /* first: it would run at once, and wait for a reader that yields */
    pthread_cond_signal(&s->monitor_cond);
}

int mf__monitor_start(struct mf_session *s)
{
    int rc = 0;

    if (!s->may_grow && !s->ring_count && !s->place.on_device)
        return 0;
    rc = mf__helper_thread(&s->monitor, "mf-monitor", monitor_main, s);
    s->monitor_on = rc == 0;
    return rc;
}

void mf__monitor_stop(struct mf_session *s)
{
    if (s->monitor_on) {
        atomic_store(&s->monitor_end, 1);
        mf__monitor_wake(s);
        pthread_join(s->monitor, NULL);
        s->monitor_on = false;
    }
    mf__tasks_forget(s);
    mf__placement_stop(s);
}
#undef BUSY_TICK_NS
#undef CALM_TICKS
#undef COMPUTING_TICKS
#undef FAST_TICKS
#undef FAST_TICK_NS
#undef FEW_PER_MEMBER
#undef LATE_NS
#undef LONGEST_TICK_NS
#undef LOOKS_BETWEEN
#undef MANY
#undef MEAN_LOOKS
#undef OFTEN_GAP
#undef QUIET_TICKS
#undef RARE
#undef SELDOM_GAP
#undef STEADY_TICK_NS
#undef THIN_TICKS
#undef TICK_NS
#undef WINDOW_MAX

/* ==== core/session/negotiate.c ==== */
/* SPDX-License-Identifier: MIT */
/* negotiate.c - the INIT handshake, and terms that came from another session. */


/* Asked for wherever the kernel offers them: faster, and of no consequence to a filesystem. */
static const uint64_t WANTED = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                               FUSE_ASYNC_DIO | FUSE_AUTO_INVAL_DATA | FUSE_ABORT_ERROR;

/* Flags that the engine knows how to serve; an option that asks for others is refused. */
static const uint64_t SERVED = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                               FUSE_DONT_MASK | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE |
                               FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV | FUSE_POSIX_ACL | FUSE_ABORT_ERROR |
                               FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_EXPLICIT_INVAL_DATA |
                               FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT | FUSE_INIT_EXT | FUSE_SECURITY_CTX |
                               FUSE_CREATE_SUPP_GROUP | FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_PASSTHROUGH |
                               FUSE_NO_EXPORT_SUPPORT | FUSE_ALLOW_IDMAP | FUSE_OVER_IO_URING;

static uint64_t offered_flags(const struct fuse_init_in *in)
{
    uint64_t flags = in->flags;

    if (in->flags & FUSE_INIT_EXT)
        flags |= (uint64_t)in->flags2 << 32;
    return flags;
}

static uint64_t choose_flags(const struct mf_session *s, uint64_t offered)
{
    uint64_t want = WANTED | s->opts.want;

    if (s->opts.flags & MF_OPT_WRITEBACK)
        want |= FUSE_WRITEBACK_CACHE;
    want &= ~s->opts.unwant;
    if (offered & FUSE_INIT_EXT)
        want |= FUSE_INIT_EXT; /* without it the upper word is ignored */
    return want & offered;
}

static void settle_terms(struct mf_session *s, const struct fuse_init_in *in)
{
    struct mf_negotiated *t = &s->terms;

    t->size = sizeof(*t);
    t->version = MF_NEGOTIATED_VERSION;
    t->major = FUSE_KERNEL_VERSION;
    t->kernel_minor = in->minor;
    t->minor = in->minor < MF__MINOR ? in->minor : MF__MINOR;
    t->offered = offered_flags(in);
    t->flags = choose_flags(s, t->offered);
    if (!(t->flags & FUSE_MAX_PAGES) && t->max_write > 32 * MF__PAGE)
        t->max_write = 32 * MF__PAGE;
    t->max_pages = (t->max_write - 1) / MF__PAGE + 1;
    t->max_readahead = s->opts.max_readahead ? s->opts.max_readahead : in->max_readahead;
    if (t->max_readahead > in->max_readahead)
        t->max_readahead = in->max_readahead;
    t->max_background = s->opts.max_background;
    t->time_gran = s->opts.time_gran ? s->opts.time_gran : 1;
    t->implemented = s->implemented;
    t->acl = s->opts.acl;
    t->owner_uid = getuid();
    t->owner_gid = getgid();
}

static int answer_init(struct mf_session *s, struct mf__slot *slot)
{
    const struct mf_negotiated *t = &s->terms;
    struct fuse_init_out out = {
        .major = t->major,
        .minor = t->minor,
        .max_readahead = t->max_readahead,
        .flags = (uint32_t)t->flags,
        .flags2 = (uint32_t)(t->flags >> 32),
        .max_background = (uint16_t)(t->max_background > 0xffff ? 0xffff : t->max_background),
        .max_write = t->max_write,
        .time_gran = t->time_gran,
        .max_pages = (uint16_t)t->max_pages,
        .max_stack_depth = t->flags & FUSE_PASSTHROUGH ? 1u : 0u,
    };
    struct iovec body = { .iov_base = slot->io.body };

    out.congestion_threshold = (uint16_t)(out.max_background * 3u / 4u);
    body.iov_len = mf__put_init(slot->io.body, &out, t->kernel_minor);
    return slot->io.ch->ops->send(slot->io.ch, &slot->io, slot->io.msg.hdr.unique, 0, &body, 1);
}

static int refuse_init(struct mf__slot *slot, int error)
{
    return slot->io.ch->ops->send(slot->io.ch, &slot->io, slot->io.msg.hdr.unique, error, NULL, 0);
}

/* INIT is queued when the mount is made, so it is there or comes at once: never wait for it for ever. */
static int await_init(struct mf_session *s, struct mf__channel *ch, struct mf_error *err)
{
    struct pollfd p = { .fd = ch->fd, .events = POLLIN };
    int n;

    if (ch->fd < 0)
        return 0;
    do {
        n = poll(&p, 1, MF__HANDSHAKE_MS);
    } while (n < 0 && errno == EINTR && !atomic_load(&s->stop));
    if (n < 0)
        return mf__errorf(err, -errno, "cannot wait for the kernel's INIT: %s", mf__strerror(errno));
    if (n == 0)
        return mf__errorf(err, -ETIMEDOUT,
                          "no INIT from the kernel on descriptor %d: was the handshake done already? Then use "
                          "mf_session_from_fd_initialized() with the terms of the first session",
                          ch->fd);
    return 0;
}

static int receive_init(struct mf_session *s, struct mf__slot *slot, struct mf_error *err)
{
    struct mf__channel *ch = s->channels[0];
    struct mf__io *got;
    int rc = await_init(s, ch, err);

    if (rc < 0)
        return rc;
    do {
        rc = ch->ops->receive(ch, &slot->io, &got);
    } while ((rc == -EINTR || rc == -EAGAIN) && !atomic_load(&s->stop));
    if (rc == -EPERM)
        return mf__errorf(err, rc, "descriptor %d is not bound to a mount: mount it first, with fd=%d", ch->fd, ch->fd);
    if (rc < 0)
        return mf__errorf(err, rc, "cannot read INIT: %s", mf__strerror(-rc));
    slot->io.ch = ch;
    return 0;
}

static int check_offer(struct mf_session *s, const struct fuse_init_in *in, struct mf_error *err)
{
    uint64_t lacking = s->opts.want & ~offered_flags(in);

    if (in->major != FUSE_KERNEL_VERSION || in->minor < MF__MIN_MINOR)
        return mf__errorf(err, -EPROTO, "this kernel speaks FUSE protocol %u.%u; %u.%u or newer is needed (Linux 5.4)",
                          in->major, in->minor, FUSE_KERNEL_VERSION, MF__MIN_MINOR);
    if (lacking)
        return mf__errorf(err, -ENOTSUP,
                          "this kernel (FUSE %u.%u) does not offer the INIT flags 0x%llx that were asked for",
                          in->major, in->minor, (unsigned long long)lacking);
    if (s->opts.want & ~SERVED)
        return mf__errorf(err, -ENOTSUP, "manifuse does not serve the INIT flags 0x%llx that were asked for",
                          (unsigned long long)(s->opts.want & ~SERVED));
    return 0;
}

static int agree(struct mf_session *s, struct mf__slot *slot, struct mf_error *err)
{
    struct fuse_init_in in;
    int rc;

    if (slot->io.msg.hdr.opcode != FUSE_INIT || mf__decode_init(&slot->io.msg, &in) < 0) {
        refuse_init(slot, -EIO);
        return mf__errorf(err, -EPROTO, "the first message is no INIT but opcode %u: the connection is in use already",
                          slot->io.msg.hdr.opcode);
    }
    rc = check_offer(s, &in, err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    settle_terms(s, &in);
    /* As early as the kernel allows: no ordinary request is served before the clones are there. */
    rc = mf__channels_clone(s, mf__reader_target(s), err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    rc = mf__transport_choose(s, s->terms.offered, err);
    if (rc < 0) {
        refuse_init(slot, -EPROTO);
        return rc;
    }
    if (s->channels[0]->fd >= 0)
        s->terms.connection = mf__connection_number(s->channels[0]->fd);
    rc = answer_init(s, slot);
    if (rc < 0)
        return mf__errorf(err, rc, "the kernel refused the answer to INIT: %s", mf__strerror(-rc));
    return 0;
}

int mf__handshake(struct mf_session *s, struct mf_error *err)
{
    struct mf__reader *r;
    struct mf__slot *slot;
    int rc;

    s->terms.max_write = s->opts.max_write; /* sizes the buffer that INIT is read to */
    rc = mf__reader_new(s, s->channels[0], &r);
    if (rc < 0)
        return mf__errorf(err, rc, "no memory for the request buffers");
    slot = mf__slot_take(r);
    rc = slot ? receive_init(s, slot, err) : mf__errorf(err, -ECANCELED, "stopped before the handshake");
    if (rc == 0)
        rc = agree(s, slot, err);
    mf__channel_put(r->ch);
    mf__reader_free(r);
    return rc;
}

int mf__terms_check(const struct mf_negotiated *neg, struct mf_error *err)
{
    struct mf_negotiated known;
    const char *wrong = NULL;
    int rc = mf__copy_sized(&known, sizeof(known), neg, offsetof(struct mf_negotiated, connection));

    if (rc == -E2BIG)
        return mf__errorf(err, rc, "the negotiated terms come from a newer library than %s", MF_VERSION_STRING);
    if (rc < 0)
        wrong = "they are too short";
    else if (neg->version != MF_NEGOTIATED_VERSION)
        wrong = "their format is another version's";
    else if (neg->major != FUSE_KERNEL_VERSION || neg->minor < MF__MIN_MINOR)
        wrong = "the protocol is too old";
    else if (neg->max_write < MF__PAGE || neg->max_write > 256 * MF__PAGE || neg->max_write % MF__PAGE)
        wrong = "max_write is impossible";
    else if (neg->acl > MF_ACL_ALL)
        wrong = "the ACL is none";
    if (wrong)
        return mf__errorf(err, -EINVAL, "the negotiated terms cannot be used: %s", wrong);
    if (neg->minor > MF__MINOR || (neg->flags & ~(SERVED | WANTED)))
        return mf__errorf(
            err, -EPROTONOSUPPORT,
            "the connection was negotiated as FUSE %u.%u with flags 0x%llx; this library serves up to %u.%u "
            "and flags 0x%llx: use the library version of the first session",
            neg->major, neg->minor, (unsigned long long)neg->flags, FUSE_KERNEL_VERSION, MF__MINOR,
            (unsigned long long)(SERVED | WANTED));
    if (neg->transport < MF_TRANSPORT_DEVICE || neg->transport > MF_TRANSPORT_MEMORY)
        return mf__errorf(err, -EPROTONOSUPPORT, "the connection's transport is of kind %u, which this library lacks",
                          neg->transport);
    return 0;
}

/* ==== core/session/notify.c ==== */
/* SPDX-License-Identifier: MIT */
/* notify.c - messages that the filesystem sends of its own accord. */

#define MESSAGE_MAX 4352u /* a name of 4095 bytes and what stands before it */

static int notify(struct mf_session *s, const void *msg, int64_t len)
{
    struct mf__channel *ch = NULL;
    int rc;

    if (len < 0)
        return (int)len;
    pthread_mutex_lock(&s->lock);
    if (s->channel_count) {
        ch = s->channels[0];
        mf__channel_get(ch);
    }
    pthread_mutex_unlock(&s->lock);
    if (!ch)
        return -ENOTCONN;
    rc = ch->ops->write_raw(ch, msg, (size_t)len);
    mf__channel_put(ch);
    return rc == -ENOENT ? 0 : rc; /* the kernel knew nothing of it: that is what was wanted */
}

int mf_notify_inval_inode(struct mf_session *s, uint64_t node, int64_t offset, int64_t length)
{
    uint8_t msg[64];

    return notify(s, msg, mf__put_notify_inval_inode(msg, sizeof(msg), node, offset, length));
}

int mf_notify_inval_entry(struct mf_session *s, uint64_t parent, const char *name, uint64_t name_len)
{
    uint8_t msg[MESSAGE_MAX];

    return notify(s, msg, mf__put_notify_inval_entry(msg, sizeof(msg), parent, name, name_len, 0));
}
#undef MESSAGE_MAX

/* ==== core/session/placement.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * placement.c - how readers stand towards their clients in the scheduler's eyes.
 *
 * A ring is fast because client and reader take turns on one CPU. A server that runs in a scheduling group of its
 * own (a session, with autogroup) loses that: at each answer the scheduler finds another CPU idle and moves the
 * client there. It leaves the client where it is if the reader counts for nothing: class SCHED_IDLE, and the
 * group at nice 19. On a machine that is busy with other things the same would starve the server. So readers
 * yield like that only as long as they are not kept waiting: the time that a thread was ready to run and did not
 * is in its schedstat, and more than LONG_WAIT_NS for each request ends it within some tens of milliseconds. Where the
 * monitor has no priority it may be kept waiting, too: that says the same. So does
 * a machine without an idle CPU, if the readers leave most of it to others.
 *
 * On the device a request wakes the reader that has waited longest, on whatever CPU. But with one that yields on the
 * client's own CPU, this one runs as soon as the client sleeps, and has the request before the other is awake: most
 * requests then cross no CPU there either. It takes a reader on each CPU, and the right to leave SCHED_IDLE again, for
 * this is the ordinary case of sessions whose handlers may start threads and programs: inherit.c sets those free.
 *
 * A stream that is read ahead is another matter: the client copies what it has got while the reader could bring the
 * next. One CPU for both would have them take turns, so there the readers run apart, wherever there is room: where streams
 * are read on every CPU there is none, and they are together again at the next look. On the device one is enough for such a
 * client: two take turns with it and with each other.
 */


/* One ring for each CPU. */
static bool rings_placed(const struct mf_session *s)
{
    return s->ring_count && s->ring_count == s->ring_queues && s->opts.placement == MF_PLACEMENT_AUTO;
}

/* In words: where readers are bound to, and how they are scheduled now. */
void mf__placement_describe(struct mf_session *s, char *text, size_t room)
{
    const char *how = "scheduled as any thread";
    const char *where = "readers run on any CPU";

    if (s->opts.placement == MF_PLACEMENT_PINNED)
        where = "each reader is bound to a CPU, as asked";
    else if (rings_placed(s))
        where = "ring readers are bound to their queue's CPU";
    else if (s->place.on_device && atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        where = "readers are bound to a CPU each";
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        how = "they yield to their clients, since the machine is quiet";
    else if (atomic_load(&s->place_mode) == MF__PLACE_PLAIN)
        how = "they do not yield, since the machine is busy, other threads answer, or one caller shares their session";
    else if (atomic_load(&s->place_mode) == MF__PLACE_APART)
        how = s->place.on_device ? "for now one of them serves all, beside clients that copy streams"
                                 : "for now on any, apart from the clients that read streams";
    snprintf(text, room, "%s; %s", where, how);
}

#if defined(__linux__) && !defined(MF_NO_LINUX)

#define GROUP_NICE 19 /* the least weight: with more, clients that run drift into one request per turn of a reader */
#define GROUP_NICE_WOKEN 10 /* where threads of the group are woken to answer: with less they are late */
#define GROUP_NICE_UNWATCHED 5
#define CATCH_UP 10         /* nice values below its own, for a look or longer: see wanted_nice() */
#define LOOK_NS 24000000u   /* between two looks */
#define LONG_WAIT_NS 20000u /* for each request; 4 to 7 µs where only the mount's own clients run, 1 to 32 of them */
#define LONG_WAIT_WOKEN_NS 120000u /* where each request wakes a reader: 20 to 95 µs with 16 handlers that sleep 1 ms */
#define WAIT_PER_BYTE_NS 2u        /* and while a client copies what it gets: 0.9 with one in a stream, 1.7 with 8 */
#define LONG_WAKE_NS 2000000u      /* in all, for a reader to get to run for the first request after a pause */
#define LONG_LOOKS 2u              /* in a row */
#define WINDOW_NS 64000000u        /* over which idle time is looked at */
#define STREAM_BYTES 32768u        /* of a request, on the mean: its client's copying is what takes the CPUs */
#define STREAM_REQUESTS 8u         /* between two looks */
#define MANY_FOREIGN 16u           /* answers between two looks: other threads give them, beside or by way of readers */
#define MANY_IN_HAND 2u            /* requests for each CPU, where that is so */
#define APART_NS MF_SECOND         /* before it is seen whether yielding would do */
#define APART_LOOKS 3u             /* in a row */
#define LONG_NS 200000u            /* after its request: a client has been asleep for long */
#define RUSH 50u                   /* requests of a millisecond on one ring: a client calls there without pause */
#define ENOUGH_TURNS 16u           /* below this a window says nothing, */
#define LONG_WINDOW_NS (4 * WINDOW_NS) /* unless it is so long */
#define HOLD_NS (MF_SECOND / 4)        /* at first, before it tries again; doubled each time that goes wrong */
#define HOLD_MAX_NS (16 * MF_SECOND)
#define RESTORE_TRIES 40         /* of 5 ms: twice as long as the kernel may refuse it */
#define TRIAL_NS (MF_SECOND / 5) /* a relapse within this time counts as gone wrong */

static _Atomic(struct mf_session *) autogroup_owner; /* one session of the process may set the group's nice */

/* 0 or -errno. Without CAP_SYS_ADMIN the kernel takes one value in a tenth of a second: -EAGAIN. */
static int write_group_nice(int nice)
{
    int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    char text[16];
    int rc;

    if (fd < 0)
        return -EAGAIN; /* for want of descriptors, say */
    rc = write(fd, text, (size_t)snprintf(text, sizeof(text), "%d", nice)) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/*
 * The group's nice value is the whole session's: only a process that leads its own may change it. Where the monitor
 * does not stand above it a smaller one must do, or it could not see any more that the group starves.
 */
static void set_group_nice(struct mf_session *s, int nice)
{
    struct mf_session *none = NULL;
    int rc;

    if (nice == s->place.nice_now || getsid(0) != getpid())
        return;
    if (!atomic_compare_exchange_strong(&autogroup_owner, &none, s) && none != s)
        return;
    rc = write_group_nice(nice);
    if (rc == -EPERM && nice < s->place.group_nice) /* it takes CAP_SYS_NICE */
        rc = write_group_nice(nice = s->place.group_nice);
    if (rc != -EAGAIN)
        s->place.nice_now = nice;
    if (s->place.nice_now == s->place.group_nice)
        atomic_store(&autogroup_owner, NULL);
}

/*
 * While nothing comes the group keeps its weight: what else the program does would starve beside others, and no reader would
 * be kept waiting for that to be seen. It gives it up with the first request: given up under way by a group that clients keep
 * busy, these drift into one request per turn of the reader (8 clients did 0.86 of the calls, 32 0.78).
 *
 * A group that had next to no weight owes the others for what it ran while nobody else wanted to. Linux 6.18 places the
 * running group anew at each change of its share, and while it is owed much its virtual time then stands still: it
 * computes without end and never gets what it is owed, and the readers starve for seconds, whatever their nice value is
 * (seen in 8 of 360 samples beside others in the clients' session). With more weight that is not so.
 */
static int wanted_nice(const struct mf_session *s)
{
    int plain = s->place.catches_up ? s->place.group_nice - CATCH_UP : s->place.group_nice;

    if (atomic_load(&s->place_mode) != MF__PLACE_YIELDING || !s->place.lively)
        return plain < -20 ? -20 : plain;
    if (!s->place.watchful)
        return GROUP_NICE_UNWATCHED;
    return s->place.woken ? GROUP_NICE_WOKEN : GROUP_NICE;
}

static int group_nice(void)
{
    char text[64], *nice;

    if (mf__read_text("/proc/self/autogroup", text, sizeof(text)) < 0 || !(nice = strstr(text, "nice ")))
        return 0;
    return (int)strtol(nice + strlen("nice "), NULL, 10);
}

/* "cpu.weight" of 100, "cpu.shares" of 1024, and what is no group of its own have the share of any other process. */
static bool full_weight(const char *dir)
{
    static const struct {
        const char *file;
        unsigned usual;
    } weights[] = { { "cpu.weight", 100 }, { "cpu.shares", 1024 } };
    char path[512], text[32];
    uint64_t weight;

    for (size_t i = 0; i < MF__ARRAY_SIZE(weights); i++) {
        int n = snprintf(path, sizeof(path), "%s/%s", dir, weights[i].file);

        if (n < 0 || (size_t)n >= sizeof(path))
            return false;
        if (mf__read_text(path, text, sizeof(text)) == 0 && mf__read_numbers(text, &weight, 1) == 1)
            return weight >= weights[i].usual;
    }
    return true;
}

/* Each group from `path` up to the root of a hierarchy. */
static bool full_weights(const char *mounted, const char *path)
{
    char dir[512];
    int root = snprintf(dir, sizeof(dir), "%s", mounted);
    int n = snprintf(dir, sizeof(dir), "%s%s", mounted, path);

    if (root < 0 || n < root || (size_t)n >= sizeof(dir))
        return false;
    while (n > root + 1) {
        if (!full_weight(dir))
            return false;
        while (n > root && dir[--n] != '/')
            continue;
        dir[n] = '\0';
    }
    return true;
}

/*
 * Has this process the CPU share of any other, by its control groups? With less it may not get to run for seconds as
 * soon as others compute: too late to see that, and to do something about it.
 */
static bool ordinary_share(void)
{
    char text[4096], *line, *rest = text;
    bool full = true;

    if (mf__read_text("/proc/self/cgroup", text, sizeof(text)) < 0)
        return true; /* no control groups */
    while (full && (line = strsep(&rest, "\n"))) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!path)
            continue;
        *path++ = '\0';
        if (!strcmp(controllers, ":"))
            full = full_weights("/sys/fs/cgroup", path) && full_weights("/sys/fs/cgroup/unified", path);
        else if (!strcmp(controllers, ":cpu") || !strcmp(controllers, ":cpu,cpuacct"))
            full = full_weights("/sys/fs/cgroup/cpu", path);
    }
    return full;
}

static void session_placement_set_mode(struct mf_session *s, uint32_t mode)
{
    s->place.since_ns = mf__now_ns();
    mf__crews_place(s, atomic_exchange(&s->place_mode, mode), mode);
    set_group_nice(s, wanted_nice(s));
    mf__logf(&s->log, MF_LOG_INFO, "readers %s",
             mode == MF__PLACE_YIELDING ? "yield to their clients"
             : mode == MF__PLACE_APART  ? "run apart from their clients"
                                        : "run as others");
}

/* What is in SCHED_IDLE may not get to run, and so not to leave it. Where that is permitted it is done from here. */
static void rouse(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        mf__free_reader(s->readers[i]);
}

/* While requests come: there may be readers that wait for a CPU, and others to whom they owe some of it. */
static void stop_yielding(struct mf_session *s, uint32_t mode)
{
    s->place.catches_up = s->place.watchful && atomic_load(&s->place_mode) == MF__PLACE_YIELDING;
    session_placement_set_mode(s, mode);
    rouse(s);
}

/* Ready to run, and not once on a CPU since the last look: that is not in its schedstat yet. */
static bool starved(struct mf__reader *r, const uint64_t at[3])
{
    return at[2] == r->turns && at[0] == r->ran_ns && !mf__task_sleeps(r);
}

/* Are the members of this crew placed at all? */
static bool placed(const struct mf_session *s, const struct mf__crew *c)
{
    return c->ring || s->place.on_device;
}

struct waits {
    uint64_t elapsed; /* ns since the last look; in that time: */
    uint64_t ns;      /* ready to run, and did not, though no other reader of the same CPU ran */
    uint64_t ran;     /* ns */
    uint64_t turns;
    uint64_t requests;
    uint64_t bytes;   /* of requests and answers */
    uint64_t behind;  /* requests that came while another one waited */
    uint64_t foreign; /* answers that other threads gave */
    uint64_t in_hand; /* requests that nobody has answered yet */
    uint32_t starved; /* readers that did not run at all, though they could */
    bool near;        /* all callers that were looked at are in the scheduling group of this process */
    bool spread;      /* requests came on all rings, much the same on each: clients are on all CPUs */
    bool unfit;       /* the session is not for yielding, whatever others do */
};

static void look_at_rings(struct mf_session *s, struct waits *w)
{
    uint64_t behind = 0, least = UINT64_MAX, most = 0;
    struct mf__ring_counts n;

    for (uint32_t i = 0; i < s->crew_count; i++) {
        struct mf__crew *c = &s->crews[i];
        uint64_t asked;

        if (!c->ring)
            continue;
        mf__ring_counts(c->ring, &n);
        behind += n.behind;
        asked = n.requests - c->asked;
        c->asked = n.requests;
        least = asked < least ? asked : least;
        most = asked > most ? asked : most;
    }
    w->behind = behind - s->place.behind;
    w->spread = s->ring_count && least >= most / 4;
    s->place.behind = behind;
}

/* One reader that is placed: what it adds to its crew's. */
static void look_at_reader(struct mf__reader *r, struct waits *w)
{
    uint64_t at[3];

    if (mf__task_schedstat(r, at) < 0)
        return;
    if (r->turns && starved(r, at)) {
        w->ns += w->elapsed;
        w->turns += 1;
        w->starved++;
    } else if (r->turns && at[2] >= r->turns) {
        w->ns += at[1] - r->waited_ns;
        w->ran += at[0] - r->ran_ns;
        w->turns += at[2] - r->turns;
    }
    r->ran_ns = at[0];
    r->waited_ns = at[1];
    r->turns = at[2];
}

/* Does /proc say the same of both? Where it says nothing of this process, of all. */
static bool same_text(const char *file, uint32_t tid)
{
    char path[64], own[1024], other[sizeof(own)];

    snprintf(path, sizeof(path), "/proc/self/%s", file);
    if (mf__read_text(path, own, sizeof(own)) < 0)
        return true;
    snprintf(path, sizeof(path), "/proc/%u/%s", tid, file);
    return mf__read_text(path, other, sizeof(other)) == 0 && !strcmp(own, other);
}

static bool near(struct mf__reader *r, uint32_t caller)
{
    if (caller != r->known_caller) {
        r->known_caller = caller;
        r->near = same_text("autogroup", caller) && same_text("cgroup", caller);
    }
    return r->near;
}

/* One caller for each reader: of the last request that was timed. */
static bool callers_near(struct mf_session *s)
{
    bool all = true, any = false;

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];
        uint32_t caller = atomic_exchange_explicit(&r->caller, 0, memory_order_relaxed);

        any = any || caller;
        all = all && (!caller || near(r, caller));
    }
    return any && all;
}

/* The members of a ring's crew share one CPU: what one waits while another runs there is no work of others. */
static void look_at_crew(struct mf_session *s, struct mf__crew *c, struct waits *w)
{
    struct waits own = { .elapsed = w->elapsed };

    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->crew) == c)
            look_at_reader(s->readers[i], &own);
    }
    if (c->ring && atomic_load(&c->members) > 1)
        own.ns -= own.ns < own.ran ? own.ns : own.ran;
    w->ns += own.ns;
    w->ran += own.ran;
    w->turns += own.turns;
    w->starved += own.starved;
}

/* Of all readers that are placed, within `elapsed` ns since the last look. */
static void look_at_waits(struct mf_session *s, uint64_t elapsed, struct waits *w)
{
    uint64_t requests = 0, bytes = 0, foreign = 0, answered = 0;

    *w = (struct waits){ .elapsed = elapsed };
    for (uint32_t i = 0; i < s->crew_count; i++) {
        if (placed(s, &s->crews[i]))
            look_at_crew(s, &s->crews[i], w);
    }
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        struct mf__reader *r = s->readers[i];

        requests += atomic_load_explicit(&r->stats.requests, memory_order_relaxed);
        bytes += mf__reader_bytes(r);
        foreign += atomic_load_explicit(&r->foreign->replies, memory_order_relaxed);
        answered += atomic_load_explicit(&r->stats.replies, memory_order_relaxed) +
                    atomic_load_explicit(&r->stats.no_reply, memory_order_relaxed);
    }
    w->near = !s->place.on_device && callers_near(s);
    w->requests = requests - s->place.requests;
    w->bytes = bytes - s->place.bytes;
    w->foreign = foreign - s->place.foreign;
    w->in_hand = requests > answered + foreign ? requests - answered - foreign : 0;
    s->place.requests = requests;
    s->place.bytes = bytes;
    s->place.foreign = foreign;
}

/* ns since the start of the system in which CPUs had nothing to do, of all together. Waiting for a mount is iowait. */
static uint64_t idle_time(void)
{
    uint64_t times[5] = { 0 }; /* user, nice, system, idle, iowait */
    long hertz = sysconf(_SC_CLK_TCK);
    char text[256];

    if (mf__read_text("/proc/stat", text, sizeof(text)) == 0 && !strncmp(text, "cpu ", 4))
        (void)mf__read_numbers(text + 4, times, MF__ARRAY_SIZE(times));
    return (times[3] + times[4]) * (MF_SECOND / (hertz > 0 ? (uint64_t)hertz : 100));
}

static void session_placement_begin_window(struct mf_session *s, uint64_t now_ns, uint64_t idle_ns)
{
    s->place.window_ns = now_ns;
    s->place.idle_ns = idle_ns;
    s->place.ran_ns = s->place.window_turns = 0;
}

static bool streams(const struct waits *w)
{
    return w->requests >= STREAM_REQUESTS && w->bytes >= w->requests * STREAM_BYTES;
}

/*
 * The clients compute beside a stream, other CPUs are idle, and: on a ring requests stand in line and wait for the CPU
 * that their client has; on the device one reader has time enough for all of them.
 */
static bool better_apart(struct mf_session *s, const struct waits *w)
{
    bool waits = w->behind > w->requests / 6 && w->ns > w->ran / 3;
    bool apart = streams(w) && (s->place.on_device ? w->ran < w->elapsed * 3 / 4 : waits);

    s->place.apart_looks = apart ? s->place.apart_looks + 1 : 0;
    if (apart && s->place.apart_proved && !w->spread)
        return true; /* as it was the last time */
    return s->place.apart_looks >= APART_LOOKS && s->place.clients_compute && s->place.idle_cpu;
}

/* Others compute as well, so that readers wait longer than they run: one of them alone would get less than all. */
static bool starved_apart(const struct waits *w)
{
    return w->requests >= STREAM_REQUESTS && w->ns > w->ran;
}

/*
 * What was a reason to run apart has ended, or has to be looked at again: what would be seen otherwise is not seen now.
 * Beside two clients, say, one reader of the device leaves a CPU idle, which two would use.
 */
static bool better_together(struct mf_session *s, const struct waits *w, uint64_t age)
{
    bool done = w->requests >= STREAM_REQUESTS && (!streams(w) || w->spread);
    bool full = s->place.on_device && w->ran > w->elapsed * 9 / 10;

    s->place.apart_proved = s->place.clients_compute && !s->place.on_device;
    return done || full || age > APART_NS || !s->place.clients_compute;
}

/* A client that waits for each answer. Of many that start at once some stand in line, and their start takes CPU time. */
static bool one_at_a_time(const struct waits *w)
{
    return w->requests <= w->turns * 5 / 4 && w->behind <= w->requests / 8;
}

/*
 * No CPU is idle, and the readers, who have work, are not the reason, or copy what their clients stream: there the
 * scheduler moves no client to an idle CPU, so that nothing is to be had by yielding. Looked at over some looks, since
 * idle time comes in steps, and over more where readers had little to do. But the longer readers count for nothing, the
 * likelier is one who computes to be moved to their CPU: if after a pause no CPU is idle while requests come one at a time,
 * the first look will do.
 */
static bool crowded(struct mf_session *s, const struct waits *w, uint64_t now_ns)
{
    uint64_t window = now_ns - s->place.window_ns;
    uint64_t capacity, idle_ns;
    bool none_idle;
    long cpus;

    s->place.ran_ns += w->ran;
    s->place.window_turns += w->turns;
    if (window < WINDOW_NS && !(s->place.first_look && one_at_a_time(w)))
        return s->place.crowded;
    idle_ns = idle_time();
    if (window < WINDOW_NS && idle_ns != s->place.idle_ns)
        return s->place.crowded;
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    capacity = window * (cpus > 0 ? (uint64_t)cpus : 1);
    idle_ns -= s->place.idle_ns;
    none_idle = idle_ns < capacity / 20;
    if (none_idle && s->place.window_turns <= ENOUGH_TURNS && window < LONG_WINDOW_NS)
        return s->place.crowded;
    s->place.idle_cpu = idle_ns > capacity / 5;
    s->place.full = idle_ns < capacity / 3;
    s->place.clients_compute = s->place.ran_ns * 3 / 2 + idle_ns < capacity;
    s->place.crowded = none_idle && s->place.window_turns && (streams(w) || s->place.ran_ns < capacity * 3 / 10);
    session_placement_begin_window(s, now_ns, s->place.idle_ns + idle_ns);
    return s->place.crowded;
}

/* Does each request wake a reader of its own, as on the device, rather than stand in line for one of them? */
static bool a_reader_each(const struct mf_session *s)
{
    bool own = s->place.on_device;

    for (uint32_t i = 0; i < s->ring_count; i++)
        own = own || atomic_load(&s->rings[i]->calling) == MF__OWN_RINGS;
    return own;
}

/*
 * Others keep the readers, or the monitor itself, from a CPU. Where each request wakes a reader, these stand in line, too,
 * behind clients and each other: there it takes more, or a reader that did not run at all.
 */
static bool others_run(struct mf_session *s, const struct waits *w)
{
    bool among_them = s->place.woken && !w->starved && a_reader_each(s);
    uint64_t usual = w->requests * (among_them ? LONG_WAIT_WOKEN_NS : LONG_WAIT_NS) + w->bytes * WAIT_PER_BYTE_NS;
    bool waits = w->ns > (w->turns > ENOUGH_TURNS ? w->elapsed / 16 : w->elapsed / 2) && w->ns > usual;
    bool late = s->place.late_ns > w->elapsed / 2;

    s->place.late_ns = 0;
    s->place.long_looks = waits || late ? s->place.long_looks + 1 : 0;
    return s->place.long_looks >= LONG_LOOKS;
}

/* Whether others compute is to be seen only by trying, less often each time; the session's own doing always is. */
static void run_as_others(struct mf_session *s, const struct waits *w, uint64_t age)
{
    if (w->unfit || age > s->place.hold_ns)
        s->place.hold_ns = HOLD_NS;
    else if (age < TRIAL_NS && s->place.hold_ns < HOLD_MAX_NS)
        s->place.hold_ns *= 2;
    stop_yielding(s, MF__PLACE_PLAIN);
}

/*
 * Clients of the readers' own scheduling group call one at a time over a ring. The scheduler leaves them on their CPU anyway,
 * and a reader that is put off in the middle of its answer costs them a twentieth of their calls. More of them, whose requests
 * it takes at one go, gain by it as others do.
 */
static bool near_callers(const struct mf_session *s, const struct waits *w)
{
    return w->near && !s->place.woken && w->turns > ENOUGH_TURNS && one_at_a_time(w);
}

/*
 * The session's own doing: what handlers start cannot be set free; or other threads answer over a ring, whose readers commit
 * that: where the CPUs are full, or many clients wait, they wait for readers that stand back. On the device who answers
 * writes that himself, and readers had better stay on a CPU each: where the scheduler puts them decides there over a stat of
 * 15 or of 95 us beside 16,000 answers a second of one of Python's threads.
 */
static bool unfit(const struct mf_session *s, const struct waits *w)
{
    bool many_wait = w->in_hand > (uint64_t)MANY_IN_HAND * s->one_per_cpu;

    return s->place.given_up || near_callers(s, w) ||
           (!s->place.on_device && (s->place.full || many_wait) && w->foreign >= MANY_FOREIGN);
}

/* The session ends: who yields might wait for a CPU for many seconds, be it only to see that he is to leave. */
static void yield_no_more(struct mf_session *s)
{
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING)
        stop_yielding(s, MF__PLACE_PLAIN);
}

/* `age`: ns for which it has been as it is. */
static void decide(struct mf_session *s, const struct waits *w, bool busy, uint64_t age)
{
    uint32_t mode = atomic_load(&s->place_mode);
    bool held = mode == MF__PLACE_PLAIN && age <= s->place.hold_ns;
    bool apart = mode != MF__PLACE_APART && better_apart(s, w) && !w->unfit;

    if (mode == MF__PLACE_APART && starved_apart(w)) {
        s->place.apart_proved = false;
        run_as_others(s, w, age);
    } else if (mode == MF__PLACE_APART && better_together(s, w, age)) {
        session_placement_set_mode(s, MF__PLACE_YIELDING);
        session_placement_begin_window(s, s->place.looked_ns, idle_time());
        s->place.idle_cpu = false;
    } else if (apart) {
        stop_yielding(s, MF__PLACE_APART);
    } else if (mode == MF__PLACE_YIELDING && (busy || w->unfit)) {
        run_as_others(s, w, age);
    } else if (mode == MF__PLACE_PLAIN && !held && !busy && !w->unfit && s->place.long_looks == 0 &&
               w->turns > ENOUGH_TURNS) {
        session_placement_set_mode(s, MF__PLACE_YIELDING);
    }
}

void mf__placement_look(struct mf_session *s, uint64_t now_ns, uint64_t late_ns)
{
    uint32_t mode = atomic_load(&s->place_mode);
    uint64_t elapsed = now_ns - s->place.looked_ns;
    struct waits w;
    bool busy;

    s->place.late_ns += late_ns;
    if (!mode || elapsed < LOOK_NS)
        return;
    look_at_waits(s, elapsed, &w);
    look_at_rings(s, &w);
    s->place.woken = w.foreign >= MANY_FOREIGN || mf__handlers_wait(s);
    busy = others_run(s, &w);
    busy = crowded(s, &w, now_ns) || busy;
    w.unfit = unfit(s, &w);
    s->place.catches_up = s->place.catches_up && w.starved;
    set_group_nice(s, wanted_nice(s));
    if (mode == MF__PLACE_YIELDING) {
        mf__free_heirs(s);
        if (s->place.on_device)
            mf__crew_spread(s);
    }
    s->place.looked_ns = now_ns;
    s->place.first_look = false;
    if (atomic_load(&s->ending))
        yield_no_more(s);
    else
        decide(s, &w, busy, now_ns - s->place.since_ns);
}

static bool readers_rest(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (!mf__task_sleeps(s->readers[i]) || mf__may_have_heirs(s->readers[i]))
            return false;
    }
    return true;
}

/* The group has its own weight then. */
bool mf__placement_may_sleep(struct mf_session *s)
{
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING && !readers_rest(s))
        return false;
    s->place.lively = s->place.catches_up = false;
    set_group_nice(s, s->place.group_nice);
    return s->place.nice_now == s->place.group_nice;
}

/* From now on; nothing that went before counts. */
static void begin_looking(struct mf_session *s)
{
    s->place.looked_ns = mf__now_ns();
    s->place.late_ns = s->place.long_looks = 0;
    s->place.first_look = true;
    /* But a stream may go on after a pause, and CPUs that were idle may be so now. */
    s->place.crowded = s->place.full = false;
    session_placement_begin_window(s, s->place.looked_ns, idle_time());
}

void mf__placement_resume(struct mf_session *s)
{
    struct waits w;

    if (!atomic_load(&s->place_mode))
        return;
    s->place.lively = true;
    set_group_nice(s, wanted_nice(s));
    look_at_waits(s, 0, &w);
    look_at_rings(s, &w);
    if (atomic_load(&s->place_mode) == MF__PLACE_YIELDING && w.ns > LONG_WAKE_NS)
        run_as_others(s, &w, mf__now_ns() - s->place.since_ns);
    if (atomic_load(&s->place_mode) == MF__PLACE_APART)
        s->place.since_ns = mf__now_ns(); /* what read a stream may go on with it */
    begin_looking(s);
}

/* On the monitor's thread, before it watches. Threads that it makes do not inherit its class. */
void mf__placement_start(struct mf_session *s)
{
    struct sched_param first = { .sched_priority = 1 };

    if (!rings_placed(s) && !s->place.on_device)
        return;
    s->place.hold_ns = HOLD_NS;
    s->place.group_nice = s->place.nice_now = group_nice();
    s->place.lively = true;
    s->place.watchful = sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
    begin_looking(s);
    if (s->place.watchful || (ordinary_share() && !s->place.on_device))
        session_placement_set_mode(s, MF__PLACE_YIELDING);
}

/* The group outlives this process where it has others: it gets its value back although the kernel takes one at a time. */
void mf__placement_stop(struct mf_session *s)
{
    const struct timespec nap = { .tv_nsec = 5000000 };

    yield_no_more(s);
    for (int i = 0; i < RESTORE_TRIES && atomic_load(&autogroup_owner) == s; i++) {
        nanosleep(&nap, NULL);
        set_group_nice(s, s->place.group_nice);
    }
}

/* May the process run on each of the CPUs? An administrator who chose some for it has his reasons. */
static bool has_all_cpus(const cpu_set_t *allowed, long cpus)
{
    for (long i = 0; i < cpus; i++) {
        if (!CPU_ISSET((size_t)i, allowed))
            return false;
    }
    return true;
}

bool mf__placement_of_device(const struct mf_session *s)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    return !s->ring_count && s->opts.placement == MF_PLACEMENT_AUTO && cpus > 1 && s->one_per_cpu == (uint32_t)cpus &&
           s->channels[0]->ops->kind == MF_TRANSPORT_DEVICE && has_all_cpus(&s->allowed, cpus);
}

/* For the scheduler's class there are two. */
static uint32_t wanted_mode(const struct mf_session *s, const struct mf__crew *c)
{
    return placed(s, c) && atomic_load(&s->place_mode) == MF__PLACE_YIELDING ? MF__PLACE_YIELDING : MF__PLACE_PLAIN;
}

bool mf__placement_fits(const struct mf__reader *r, const struct mf__crew *c)
{
    return !atomic_load(&r->spent) || wanted_mode(r->session, c) == MF__PLACE_YIELDING;
}

/* Is one parked that is in SCHED_IDLE for good? */
static bool spent_one_waits(struct mf_session *s)
{
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < atomic_load(&s->reader_count) && !found; i++)
        found = atomic_load(&s->readers[i]->spent) && atomic_load(&s->readers[i]->state) == MF__READER_PARKED &&
                !atomic_load(&s->readers[i]->crew);
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* The calling thread's. Out of SCHED_IDLE it may not be permitted. */
static bool set_class(int class)
{
    const struct sched_param param = { 0 };

    return sched_setscheduler(0, class, &param) == 0;
}

bool mf__placement_apply(struct mf__reader *r, const struct mf__crew *c)
{
    struct mf_session *s = r->session;
    uint32_t mode = wanted_mode(s, c);

    if (mode == r->place_mode || (mode == MF__PLACE_PLAIN && r->place_mode == MF__PLACE_NONE))
        return true;
    if (mode == MF__PLACE_YIELDING && atomic_load(&s->place.one_way) && spent_one_waits(s))
        return false; /* else there would be more of them each time */
    if (set_class(mode == MF__PLACE_YIELDING ? SCHED_IDLE : SCHED_OTHER)) {
        r->place_mode = mode;
        return true;
    }
    if (mode == MF__PLACE_YIELDING)
        return true; /* not permitted: it serves as it is */
    atomic_store(&s->place.one_way, true);
    atomic_store(&r->spent, true);
    return false;
}

/*
 * The scheduler takes a CPU on which only readers that yield have work for an idle one. So it wakes a client there that has
 * waited for its handler, also where another one calls without pause and just now waits for its own answer, and leaves it
 * there, call after call: eight such clients on each CPU keep that one waiting, while another CPU is idle for most of the
 * time. For an ordinary thread's wake-up it looks for an idle CPU.
 */
bool mf__placement_step_up(struct mf__reader *r, const struct mf__slot *slot)
{
    struct mf__crew *c = atomic_load_explicit(&r->crew, memory_order_relaxed);

    if (!c || atomic_load_explicit(&c->rate, memory_order_relaxed) < RUSH || r->place_mode != MF__PLACE_YIELDING ||
        !r->session->place.watchful || atomic_load_explicit(&r->freed, memory_order_relaxed) ||
        mf__now_ns() - slot->received_ns < LONG_NS || !set_class(SCHED_OTHER))
        return false;
    atomic_fetch_add_explicit(&c->led, 1, memory_order_relaxed);
    return true;
}

void mf__placement_step_back(struct mf__reader *r)
{
    /* Where readers do so no more it must not: on a busy machine it might not get to run again to find out. */
    if (!atomic_load(&r->freed) && atomic_load(&r->session->place_mode) == MF__PLACE_YIELDING)
        (void)set_class(SCHED_IDLE);
}

#else

void mf__placement_start(struct mf_session *s)
{
    (void)s;
}

void mf__placement_stop(struct mf_session *s)
{
    (void)s;
}

bool mf__placement_may_sleep(struct mf_session *s)
{
    (void)s;
    return true;
}

void mf__placement_resume(struct mf_session *s)
{
    (void)s;
}

void mf__placement_look(struct mf_session *s, uint64_t now_ns, uint64_t late_ns)
{
    (void)s;
    (void)now_ns;
    (void)late_ns;
}

bool mf__placement_apply(struct mf__reader *r, const struct mf__crew *c)
{
    (void)r;
    (void)c;
    return true;
}

bool mf__placement_fits(const struct mf__reader *r, const struct mf__crew *c)
{
    (void)r;
    (void)c;
    return true;
}

bool mf__placement_step_up(struct mf__reader *r, const struct mf__slot *slot)
{
    (void)r;
    (void)slot;
    return false;
}

void mf__placement_step_back(struct mf__reader *r)
{
    (void)r;
}

bool mf__placement_of_device(const struct mf_session *s)
{
    (void)s;
    return false;
}

#endif
#undef APART_LOOKS
#undef APART_NS
#undef CATCH_UP
#undef ENOUGH_TURNS
#undef GROUP_NICE
#undef GROUP_NICE_UNWATCHED
#undef GROUP_NICE_WOKEN
#undef HOLD_MAX_NS
#undef HOLD_NS
#undef LONG_LOOKS
#undef LONG_NS
#undef LONG_WAIT_NS
#undef LONG_WAIT_WOKEN_NS
#undef LONG_WAKE_NS
#undef LONG_WINDOW_NS
#undef LOOK_NS
#undef MANY_FOREIGN
#undef MANY_IN_HAND
#undef RESTORE_TRIES
#undef RUSH
#undef STREAM_BYTES
#undef STREAM_REQUESTS
#undef TRIAL_NS
#undef WAIT_PER_BYTE_NS
#undef WINDOW_NS

/* ==== core/session/reader.c ==== */
/* SPDX-License-Identifier: MIT */
/* reader.c - the loop of one reader, its thread, and what happens when it dies. */


#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/syscall.h>
#endif

#define MAX_RENEWALS 3u /* channels in a row that a reader may lose before the session is given up */

/*
 * One word of thread-local memory, reached without a call: the static TLS block has room for it also where
 * the library is loaded at run time.
 */
_Thread_local struct mf__reader *mf__self __attribute__((tls_model("initial-exec")));

static uint32_t thread_id(void)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    return (uint32_t)syscall(SYS_gettid);
#else
    return 0;
#endif
}

static void name_thread(pthread_t thread, const char *name)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    pthread_setname_np(thread, name);
#else
    (void)thread;
    (void)name;
#endif
}

/* Somebody else's descriptor may be non-blocking. */
static void wait_readable(struct mf__channel *ch)
{
    struct pollfd p = { .fd = ch->fd, .events = POLLIN };

    if (ch->fd >= 0)
        poll(&p, 1, 100);
}

/* The channel broke while others may be well: report it and go on with a new clone. */
static bool renew_channel(struct mf__reader *r, int error)
{
    struct mf_session *s = r->session;
    struct mf__channel *ch;
    int rc = r->ch->ops->clone(r->ch, &ch);

    atomic_fetch_add(&s->failed_readers, 1);
    mf__logf(&s->log, MF_LOG_ERROR, "reader %u: descriptor %d failed: %s; %s", r->index, r->ch->fd,
             mf__strerror(-error), rc == 0 ? "replaced by a new clone" : "no clone to replace it");
    if (rc < 0)
        return false;
    pthread_mutex_lock(&s->lock);
    rc = mf__channels_add(s, ch);
    if (rc == 0) {
        mf__channel_get(ch);
        atomic_store_explicit(&r->rx, ch, memory_order_relaxed);
        mf__channel_put(r->ch);
        r->ch = ch;
        r->fd = ch->fd;
    } else {
        mf__channel_put(ch);
    }
    pthread_mutex_unlock(&s->lock);
    return rc == 0;
}

MF__COLD static bool receive_failed(struct mf__reader *r, struct mf__channel *ch, int rc, uint32_t *renewals)
{
    if (ch != r->ch && mf__ring_state(ch) < 0) {
        mf__crew_fall_back(r, mf__ring_state(ch));
        return true;
    }
    switch (rc) {
    case -EINTR: return true;
    case -EAGAIN: wait_readable(r->ch); return true;
    case -ENODEV: /* unmounted: the ordinary end */ mf__stop_request(r->session, 0); return false;
    case -ECONNABORTED: mf__stop_request(r->session, -ECONNABORTED); return false;
    default:
        if (++*renewals <= MAX_RENEWALS && renew_channel(r, rc))
            return true;
        atomic_store(&r->session->last_failure, rc);
        if (*renewals > MAX_RENEWALS)
            mf__stop_request(r->session, rc);
        return false;
    }
}

static void session_reader_serve(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    uint32_t renewals = 0;

    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        struct mf__channel *ch = mf__crew_channel(r);
        struct mf__io *got;
        int rc;

        if (ch && !r->spare)
            r->spare = mf__slot_take(r);
        if (!ch || !r->spare)
            break;
        atomic_store_explicit(&r->rx, ch, memory_order_relaxed);
        r->spare->io.own = atomic_load_explicit(&r->own, memory_order_relaxed);
        atomic_store_explicit(&r->state, MF__READER_RECEIVING, memory_order_relaxed);
        rc = ch->ops->receive(ch, &r->spare->io, &got);
        atomic_store_explicit(&r->state, MF__READER_BUSY, memory_order_relaxed);
        mf__count(&r->stats.wakeups, 1);
        if (rc < 0) {
            if (!receive_failed(r, ch, rc, &renewals))
                break;
            continue;
        }
        if (got == &r->spare->io)
            r->spare = NULL;
        got->ch = ch;
        renewals = 0;
        if (atomic_load_explicit(&s->monitor_asleep, memory_order_relaxed))
            mf__monitor_wake(s);
        mf__dispatch(r, MF__CONTAINER_OF(got, struct mf__slot, io));
    }
    mf__reader_flush(r);
}

void mf__alive_drop(struct mf_session *s)
{
    if (atomic_fetch_sub(&s->alive, 1) == 1 && !atomic_load(&s->ending))
        mf__stop_request(s, atomic_load(&s->last_failure));
}

static void reader_ended(struct mf__reader *r)
{
    struct mf_session *s = r->session;

    mf__crew_leave(r);
    atomic_store(&r->state, MF__READER_ENDED);
    atomic_store(&r->tid, 0);
    mf__self = NULL;
    pthread_mutex_lock(&s->lock);
    mf__alive_drop(s);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/*
 * An entry that this thread armed fails its next request once the thread is gone: it must outlive the rings.
 * The caller is none of the session's readers any more.
 */
static void hold_entries(struct mf_session *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->rings_shut)
        pthread_cond_wait(&s->changed, &s->lock);
    s->holders--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void begin_hold(struct mf_session *s)
{
    pthread_mutex_lock(&s->lock);
    s->holders++;
    pthread_mutex_unlock(&s->lock);
}

#ifdef __SANITIZE_ADDRESS__
void __asan_unpoison_memory_region(const volatile void *addr, size_t size);

/* Cancelling leaves functions without their ends: what they marked on the stack is no longer true. */
static void forget_frames(void)
{
    pthread_attr_t attr;
    size_t size;
    void *base;

    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    pthread_attr_getstack(&attr, &base, &size);
    __asan_unpoison_memory_region(base, (size_t)((char *)__builtin_frame_address(0) - (char *)base));
    pthread_attr_destroy(&attr);
}
#else
static void forget_frames(void)
{
}
#endif

/* Somebody cancelled this thread: answer what it had in hand and let another one take its place. */
static void reader_cancelled(void *arg)
{
    struct mf__reader *r = arg;
    struct mf_session *s = r->session;
    struct mf__slot *slot = r->current;
    bool joinable;

    forget_frames();
    atomic_fetch_add(&s->failed_readers, 1);
    mf__logf(&s->log, MF_LOG_ERROR, "reader %u was cancelled%s; a new thread takes its place", r->index,
             slot ? " in a handler" : "");
    if (r->claimed) /* in the middle of an answer: should it be out already, this one is refused */
        mf__send_error(r->claimed, -EIO);
    if (slot && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, -EIO);
    if (slot && (slot->inside || (atomic_fetch_or(&slot->left, MF__LEFT_HANDLER) & MF__LEFT_ANSWERER)))
        mf__slot_recycle(slot); /* else whoever answers gives it back */
    r->current = NULL;
    r->entered = false; /* the thread takes along what its handler had entered */
    if (s->hooks.reader_end)
        s->hooks.reader_end(s, r->index, s->hooks_user);
    pthread_mutex_lock(&s->lock);
    joinable = r->joinable;
    r->joinable = false;
    pthread_mutex_unlock(&s->lock);
    if (joinable)
        pthread_detach(pthread_self());
    mf__self = NULL;
    begin_hold(s);
    if (!atomic_load(&s->stop) && mf__reader_spawn(r) == 0)
        atomic_fetch_sub(&s->alive, 1); /* the new thread has counted itself */
    else
        reader_ended(r);
    hold_entries(s);
}

void mf__reader_run(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    mf__self = r;
    atomic_store(&r->tid, thread_id());
    pthread_cleanup_push(reader_cancelled, r);
    if (s->hooks.reader_start)
        s->hooks.reader_start(s, r->index, s->hooks_user);
    session_reader_serve(r);
    pthread_cleanup_pop(0);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* too late: it has nothing in hand, and it ends */
    if (s->hooks.reader_end)
        s->hooks.reader_end(s, r->index, s->hooks_user);
    begin_hold(s);
    reader_ended(r);
    hold_entries(s);
    pthread_setcancelstate(cancel, NULL);
}

static void *reader_main(void *arg)
{
    struct mf__reader *r = arg;
    char name[16];

    snprintf(name, sizeof(name), "mf-reader-%u", r->index);
    name_thread(pthread_self(), name);
    mf__reader_run(r);
    return NULL;
}

/*
 * Signals of the program go to the program's own threads. What a language's runtime needs on every thread
 * (preemption, profiling, faults) and the kick stay open.
 */
static void reader_mask(sigset_t *mask)
{
    static const int open[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGURG, SIGPROF };

    sigfillset(mask);
    for (size_t i = 0; i < MF__ARRAY_SIZE(open); i++)
        sigdelset(mask, open[i]);
    sigdelset(mask, mf__kick_install());
}

int mf__reader_spawn(struct mf__reader *r)
{
    sigset_t mask, old;
    int rc;

    reader_mask(&mask);
    atomic_store(&r->state, MF__READER_NEW); /* not in a handler: its crew needs no other one for it */
    atomic_fetch_add(&r->session->alive, 1);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
    pthread_mutex_lock(&r->session->lock); /* whoever kicks reads r->thread */
    rc = pthread_create(&r->thread, NULL, reader_main, r);
    r->joinable = rc == 0;
    pthread_mutex_unlock(&r->session->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        atomic_fetch_sub(&r->session->alive, 1);
        atomic_store(&r->state, MF__READER_ENDED);
        return -rc;
    }
    return 0;
}

int mf__helper_thread(pthread_t *out, const char *name, void *(*fn)(void *), void *arg)
{
    sigset_t mask, old;
    int rc;

    sigfillset(&mask);
    pthread_sigmask(SIG_SETMASK, &mask, &old);
    rc = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        name_thread(*out, name);
    return -rc;
}
#undef MAX_RENEWALS

/* ==== core/session/registry.c ==== */
/* SPDX-License-Identifier: MIT */
/* registry.c - all sessions of this process: several may share a connection, and a forked child drops them. */


static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mf_session *sessions;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&registry_lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&registry_lock);
}

/*
 * The child must not keep its parent's connections alive, nor act on its mounts. Only async-signal-safe
 * calls here: the child of a program with threads may do no more.
 */
static void after_fork_child(void)
{
    for (struct mf_session *s = sessions; s; s = s->next) {
        for (uint32_t i = 0; i < s->channel_count; i++) {
            if (s->channels[i]->fd >= 0)
                close(s->channels[i]->fd);
            s->channels[i]->fd = -1;
        }
        for (uint32_t i = 0; i < s->ring_count; i++)
            mf__ring_close_inherited(s->rings[i]);
        if (s->mount.helper_sock >= 0)
            close(s->mount.helper_sock);
        s->mount.helper_sock = -1;
    }
    sessions = NULL;
    pthread_mutex_unlock(&registry_lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

int mf__registry_add(struct mf_session *s)
{
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&registry_lock);
    s->next = sessions;
    sessions = s;
    pthread_mutex_unlock(&registry_lock);
    return 0;
}

void mf__registry_remove(struct mf_session *s)
{
    pthread_mutex_lock(&registry_lock);
    for (struct mf_session **p = &sessions; *p; p = &(*p)->next) {
        if (*p == s) {
            *p = s->next;
            break;
        }
    }
    pthread_mutex_unlock(&registry_lock);
}

int mf__registry_each(struct mf_session *self, int (*fn)(struct mf_session *s, void *arg), void *arg)
{
    int rc = fn(self, arg);

    if (rc || self->terms.connection == 0)
        return rc;
    pthread_mutex_lock(&registry_lock);
    for (struct mf_session *s = sessions; s && !rc; s = s->next) {
        if (s != self && s->terms.connection == self->terms.connection)
            rc = fn(s, arg);
    }
    pthread_mutex_unlock(&registry_lock);
    return rc;
}

static bool reads_for(struct mf_session *s, uint32_t tid)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->tid) == tid)
            return true;
    }
    return false;
}

bool mf__registry_has_reader(uint32_t tid)
{
    bool found = false;

    pthread_mutex_lock(&registry_lock);
    for (struct mf_session *s = sessions; s && !found; s = s->next)
        found = reads_for(s, tid);
    pthread_mutex_unlock(&registry_lock);
    return found;
}

/* ==== core/session/reply.c ==== */
/* SPDX-License-Identifier: MIT */
/* reply.c - answers on their way out. Each function's caller has claimed the request. */


#define MAX_SYMLINK 4095u

/*
 * Does this thread, a reader that answers its own request, receive next? If the handler is still at it: that is what such
 * handlers do, and where they do not there is another reader to see it.
 */
static bool receives_next(const struct mf__slot *slot)
{
    const struct mf_session *s = slot->reader->session;
    uint32_t opcode = slot->io.msg.hdr.opcode;

    if (slot->returned || slot->io.own) /* nobody looks after what is held on a ring of its own */
        return slot->returned;
    return opcode < MF_STATS_OPS && atomic_load_explicit(&s->prompt[opcode], memory_order_relaxed) &&
           !atomic_load_explicit(&s->serialize, memory_order_relaxed);
}

int mf__send(struct mf__slot *slot, int error, const struct iovec *iov, int n)
{
    struct mf__channel *ch = slot->io.ch;
    uint64_t unique = slot->io.msg.hdr.unique;
    bool inside = mf__self && mf__self->current == slot;
    bool kept = slot->kept;
    size_t bytes = mf__iov_length(iov, n);
    bool up;
    int rc;

    atomic_store_explicit(&slot->journal.done, unique, memory_order_release);
    slot->io.own_thread = mf__self && atomic_load_explicit(&mf__self->rx, memory_order_relaxed) == ch;
    if (!inside)
        slot->io.own = NULL;
    up = slot->io.own && slot->io.own_thread && mf__placement_step_up(mf__self, slot);
    slot->io.receives_next = inside && slot->io.own_thread && !up && receives_next(slot);
    rc = ch->ops->send(ch, &slot->io, unique, error, iov, n);
    if (up)
        mf__placement_step_back(mf__self);
    if (mf__self)
        mf__self->claimed = NULL;
    if (rc == MF__SENT_LATER) /* that is no harm: a successor sends it once more, and the kernel takes one */
        rc = 0;
    else
        atomic_store_explicit(&slot->journal.sent, unique, memory_order_release);
    mf__count_reply(slot, error, bytes);
    atomic_store_explicit(&slot->unique, 0, memory_order_release);
    if (kept)
        mf__channel_put(ch);
    if (inside)
        slot->inside = true;
    else if ((atomic_fetch_or(&slot->left, MF__LEFT_ANSWERER) & MF__LEFT_HANDLER) != 0)
        mf__slot_give_back(slot);
    return rc;
}

int mf__send_error(struct mf__slot *slot, int error)
{
    return mf__send(slot, error, NULL, 0);
}

int mf__send_body(struct mf__slot *slot, size_t length)
{
    struct iovec iov = { .iov_base = slot->io.body, .iov_len = length };

    atomic_store_explicit(&slot->journal.laid, slot->io.msg.hdr.unique, memory_order_relaxed);
    return mf__send(slot, 0, &iov, 1);
}

int mf__refuse(struct mf__slot *slot, const char *why)
{
    mf__log_limited(slot->reader->session, MF_LOG_ERROR, "%s of node %llu: %s; answered with EIO", slot->row->name,
                    (unsigned long long)slot->call.node, why);
    mf__send_error(slot, -EIO);
    return -EINVAL;
}

/* Is `length` what the kernel takes? 0, a negative errno to answer with, or 1: say the size instead. */
static int check_length(const struct mf__slot *slot, uint64_t length)
{
    switch (slot->row->reply) {
    case MF__REPLY_XATTR:
        if (slot->call.length == 0)
            return 1;
        return length > slot->call.length ? -ERANGE : 0;
    case MF__REPLY_DATA: return length > (slot->call.op == MF_OP_READLINK ? MAX_SYMLINK : slot->call.length) ? -EIO : 0;
    default: return -EIO;
    }
}

static int send_size(struct mf__slot *slot, uint64_t size)
{
    if (size > UINT32_MAX)
        return mf__send_error(slot, -E2BIG);
    return mf__send_body(slot, mf__put_xattr_size(slot->io.body, (uint32_t)size));
}

int mf__send_data(struct mf__slot *slot, const void *data, uint64_t length)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = length };
    int rc = check_length(slot, length);

    if (rc == 1)
        return send_size(slot, length);
    if (rc == -ERANGE)
        return mf__send_error(slot, rc);
    if (rc < 0)
        return mf__refuse(slot, "more data than the kernel asked for, or data for an operation that takes none");
    if (length && !data)
        return mf__refuse(slot, "no data at a length that is not 0");
    if (data == slot->io.body && length > slot->io.body_size)
        return mf__refuse(slot, "more data than the buffer has");
    return mf__send(slot, 0, &iov, length ? 1 : 0);
}

int mf__send_fd(struct mf__slot *slot, int fd, uint64_t offset, uint64_t length)
{
    uint64_t room = slot->call.length < slot->io.body_size ? slot->call.length : slot->io.body_size;
    size_t want = (size_t)(length < room ? length : room);
    size_t done = 0;

    if (slot->row->reply != MF__REPLY_DATA || slot->call.op != MF_OP_READ)
        return mf__refuse(slot, "data from a descriptor for an operation that is no read");
    while (done < want) {
        ssize_t n = pread(fd, slot->io.body + done, want - done, (off_t)(offset + done));

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return mf__send_error(slot, -errno);
        done += n > 0 ? (size_t)n : 0;
    }
    return mf__send_body(slot, done);
}

int mf__send_entry(struct mf__slot *slot, const struct mf_entry *entry, const struct mf_open *open)
{
    bool create = slot->row->reply == MF__REPLY_CREATE;
    size_t n;

    if ((slot->row->reply != MF__REPLY_ENTRY && !create) || create != (open != NULL))
        return mf__refuse(slot, "an entry does not answer this operation");
    if (mf__check_entry(entry, slot->call.op == MF_OP_LOOKUP) < 0)
        return mf__refuse(slot, "an entry whose node, type, size or times are impossible");
    n = mf__put_entry(slot->io.body, entry);
    if (open)
        n += mf__put_open(slot->io.body + n, open->fh, open->flags, open->backing_id);
    return mf__send_body(slot, n);
}

static int answer_entry(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    struct mf_entry e = {
        .size = sizeof(e),
        .node = a->node,
        .generation = a->generation,
        .entry_timeout_ns = a->entry_timeout_ns,
        .attr_timeout_ns = a->attr_timeout_ns,
        .attr = a->attr,
    };
    struct mf_open open = { .size = sizeof(open), .flags = a->open_flags, .fh = a->fh, .backing_id = a->backing_id };

    return mf__send_entry(slot, &e, slot->row->reply == MF__REPLY_CREATE ? &open : NULL);
}

static int answer_data(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;

    if (a->flags & MF_ANSWER_FD)
        return mf__send_fd(slot, a->data_fd, a->data_offset, a->data_len);
    if (slot->row->reply == MF__REPLY_XATTR && !a->data && !a->data_len)
        return slot->call.length ? mf__send_data(slot, slot->io.body, 0) : send_size(slot, a->value);
    return mf__send_data(slot, a->data ? a->data : slot->io.body, a->data_len);
}

int mf__send_written(struct mf__slot *slot, uint64_t value)
{
    uint8_t *body = slot->io.body;
    bool wide = slot->row->reply == MF__REPLY_COPY64;

    if (!wide && slot->row->reply != MF__REPLY_WRITE)
        return mf__refuse(slot, "an answer of another kind than the operation's");
    if (value > slot->call.length)
        return mf__refuse(slot, "more bytes written than there were");
    return mf__send_body(slot, wide ? mf__put_copy64(body, value) : mf__put_write(body, (uint32_t)value));
}

static int answer_statfs(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    struct mf_statfs st;

    if (mf__copy_sized(&st, sizeof(st), a->data ? a->data : slot->io.body, sizeof(uint32_t)) < 0)
        return mf__refuse(slot, "statfs wants a struct mf_statfs");
    return mf__send_body(slot, mf__put_statfs(slot->io.body, &st));
}

int mf__send_answer(struct mf__slot *slot)
{
    const struct mf_answer *a = &slot->call.answer;
    uint8_t *body = slot->io.body;

    switch (slot->row->reply) {
    case MF__REPLY_EMPTY: return mf__send_error(slot, 0);
    case MF__REPLY_ENTRY:
    case MF__REPLY_CREATE: return answer_entry(slot);
    case MF__REPLY_ATTR:
        if (mf__check_attr(&a->attr) < 0)
            return mf__refuse(slot, "attributes whose type, size or times are impossible");
        return mf__send_body(slot, mf__put_attr(body, a->attr_timeout_ns, slot->call.node, &a->attr));
    case MF__REPLY_OPEN: return mf__send_body(slot, mf__put_open(body, a->fh, a->open_flags, a->backing_id));
    case MF__REPLY_DATA:
    case MF__REPLY_XATTR: return answer_data(slot);
    case MF__REPLY_WRITE:
    case MF__REPLY_COPY64: return mf__send_written(slot, a->value);
    case MF__REPLY_STATFS: return answer_statfs(slot);
    case MF__REPLY_LSEEK: return mf__send_body(slot, mf__put_lseek(body, a->value));
    default: return mf__refuse(slot, "no answer of this kind is served");
    }
}
#undef MAX_SYMLINK

/* ==== core/session/rings.c ==== */
/* SPDX-License-Identifier: MIT */
/* rings.c - whether requests come over io_uring, the rings of a session, and their end. */


#define DRAIN_NS (MF_SECOND / 2) /* where all readers get to run it takes no time */
#define DRAIN_LOOK_US 200
#define DEFAULT_PAGES 32u /* of a request, where INIT settled no number */

/* Whose rings they would be: the system's, or those of a virtual kernel. NULL: it has none. */
static const struct mf__uring_sys *ring_system(const struct mf_session *s, void **kernel)
{
    *kernel = NULL;
    if (s->channels[0]->fd >= 0)
        return &mf__uring_system;
    return mf__memory_uring(s->channels[0], kernel);
}

/* Why not, in words; NULL: rings may be tried. */
static const char *excluded(const struct mf_session *s, uint64_t offered, bool possible)
{
    if (!possible)
        return "the connection is one in memory";
    if (s->opts.uring == MF_URING_OFF)
        return "io_uring is off by option";
    if (!(offered & FUSE_OVER_IO_URING))
        return "the kernel does not offer it: fuse's parameter enable_uring is off, or the kernel is older than 6.14";
    if (s->opts.clone_fd == MF_CLONE_REQUIRE)
        return "clones of the device are required by option";
    if (s->opts.flags & MF_OPT_INLINE)
        return "the calling thread is the only reader";
    if (s->opts.readers == 1 && s->opts.uring != MF_URING_REQUIRE)
        return "one reader was asked for";
    return NULL;
}

/* Bytes of the largest payload in the kernel's reckoning: a request's or an answer's. */
static uint32_t payload_size(const struct mf_session *s)
{
    uint32_t pages = s->terms.flags & FUSE_MAX_PAGES ? s->terms.max_pages : DEFAULT_PAGES;
    uint32_t size = pages * MF__PAGE;

    if (size < s->terms.max_write)
        size = s->terms.max_write;
    return size < FUSE_MIN_READ_BUFFER ? FUSE_MIN_READ_BUFFER : size;
}

/* A ring was refused, and with it the mount's readiness for any: the readers of all rings go to the device. */
static void session_rings_refused(void *user, int error)
{
    struct mf_session *s = user;

    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_refuse(s->rings[i], error);
}

static bool session_rings_may_wait(void *user, uint32_t opcode)
{
    return mf__op_may_wait(user, opcode);
}

static void session_rings_leave(void *user)
{
    (void)user;
    mf__leave_language(mf__self);
}

static int make_rings(struct mf_session *s, const struct mf__uring_sys *sys, void *kernel)
{
    uint32_t queues = sys->queues(kernel);
    uint32_t count = s->opts.readers && s->opts.readers < queues ? s->opts.readers : queues;
    struct mf__ring_opts opts = { .sys = sys,
                                  .kernel = kernel,
                                  .device = s->channels[0],
                                  .queues = queues,
                                  .depth = MF__RING_DEPTH,
                                  .max_payload = payload_size(s),
                                  .refused = session_rings_refused,
                                  .may_wait = session_rings_may_wait,
                                  .leave = s->hooks.leave ? session_rings_leave : NULL,
                                  .user = s };
    int rc = 0;

    if (count > MF__MAX_READERS / 2)
        count = MF__MAX_READERS / 2;
    opts.step = count;
    while (opts.depth > 2 && opts.depth * queues > MF__RING_BUDGET)
        opts.depth /= 2;
    s->rings = calloc(count, sizeof(struct mf__channel *));
    if (!s->rings)
        return -ENOMEM;
    s->ring_queues = queues;
    mf__judge_unhandled(s);
    opts.others = count - 1;
    while (rc == 0 && s->ring_count < count) {
        opts.first_queue = opts.index = s->ring_count;
        rc = mf__ring_channel(&opts, &s->rings[s->ring_count]);
        s->ring_count += rc == 0;
        opts.last = s->rings[0];
        opts.others = 0;
    }
    return rc;
}

static void unmake_rings(struct mf_session *s)
{
    while (s->ring_count)
        mf__channel_put(s->rings[--s->ring_count]);
    free(s->rings);
    s->rings = NULL;
}

static int no_rings(struct mf_session *s, int rc, struct mf_error *err)
{
    s->terms.transport = s->channels[0]->ops->kind;
    s->terms.flags &= ~FUSE_OVER_IO_URING;
    if (s->opts.uring == MF_URING_REQUIRE)
        return mf__errorf(err, rc, "io_uring is required but cannot be used: %s", s->transport_reason);
    return 0;
}

int mf__transport_choose(struct mf_session *s, uint64_t offered, struct mf_error *err)
{
    void *kernel;
    const struct mf__uring_sys *sys = ring_system(s, &kernel);
    const char *why = excluded(s, offered, sys != NULL);
    int rc;

    if (why) {
        snprintf(s->transport_reason, sizeof(s->transport_reason), "%s", why);
        return no_rings(s, -ENOTSUP, err);
    }
    rc = mf__ring_probe(sys, kernel, s->transport_reason, sizeof(s->transport_reason));
    if (rc < 0)
        return no_rings(s, rc, err);
    rc = make_rings(s, sys, kernel);
    if (rc < 0) {
        unmake_rings(s);
        snprintf(s->transport_reason, sizeof(s->transport_reason), "no rings: %s", mf__strerror(-rc));
        return no_rings(s, rc, err);
    }
    s->terms.transport = MF_TRANSPORT_URING;
    s->terms.flags |= FUSE_OVER_IO_URING;
    s->serialize = s->opts.readers == 1;
    snprintf(s->transport_reason, sizeof(s->transport_reason), "the kernel offers io_uring: %u rings for %u queues",
             s->ring_count, s->ring_queues);
    if (kernel)
        s->ring_queues = 0; /* they are no CPUs of this machine: nobody is bound to one */
    return 0;
}

void mf__rings_drain(struct mf_session *s)
{
    uint64_t deadline = mf__now_ns() + DRAIN_NS;

    for (uint32_t i = 0; i < s->ring_count; i++) {
        while (!mf__ring_take_back(s->rings[i]) && mf__now_ns() < deadline)
            usleep(DRAIN_LOOK_US);
    }
}

void mf__rings_shut(struct mf_session *s)
{
    for (uint32_t i = 0; i < s->ring_count; i++)
        mf__ring_shut(s->rings[i]);
    pthread_mutex_lock(&s->lock);
    s->rings_shut = true;
    pthread_cond_broadcast(&s->changed);
    while (s->holders && !s->abandoned)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
#undef DEFAULT_PAGES
#undef DRAIN_LOOK_US
#undef DRAIN_NS

/* ==== core/session/signals.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * signals.c - the kick that wakes a reader out of read(2), and MF_OPT_SIGNALS.
 *
 * A blocking read costs the hot path nothing, where a poll of device and eventfd would cost a system call
 * per request and wake every reader. The kick is a real-time signal with an empty handler and no restart; it
 * is repeated until the reader has left, since the first one may come just before the read.
 */


#define KICK (SIGRTMAX - 4)
#define MAX_WATCHED 16u

static pthread_once_t kick_once = PTHREAD_ONCE_INIT;

static void on_kick(int sig)
{
    (void)sig;
}

static void install_kick(void)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_kick;
    act.sa_flags = SA_ONSTACK; /* language runtimes have small thread stacks */
    sigaction(KICK, &act, NULL);
}

int mf__kick_install(void)
{
    pthread_once(&kick_once, install_kick);
    return KICK;
}

void mf__kick(struct mf__reader *r)
{
    struct mf__channel *rx = atomic_load(&r->rx);
    struct mf__own_ring *own = atomic_load(&r->own);

    if (own && mf__own_ring_wake(own))
        return;
    if (rx->ops->wake)
        rx->ops->wake(rx);
    else
        pthread_kill(r->thread, KICK);
}

/* ---- SIGINT, SIGTERM, SIGHUP --------------------------------------------------------------------- */

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP };
static struct mf_session *_Atomic session_signals_watched[MAX_WATCHED];
static struct sigaction previous[MF__ARRAY_SIZE(end_signals)];
static pthread_mutex_t signal_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t watching;

static void on_end(int sig)
{
    int saved = errno;

    (void)sig;
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *s = atomic_load(&session_signals_watched[i]);

        if (s)
            mf_session_stop(s);
    }
    errno = saved;
}

static void install_end(void)
{
    struct sigaction act;

    memset(&act, 0, sizeof(act));
    act.sa_handler = on_end;
    act.sa_flags = SA_ONSTACK | SA_RESTART;
    for (size_t i = 0; i < MF__ARRAY_SIZE(end_signals); i++) {
        sigaction(end_signals[i], &act, &previous[i]);
        /* What the parent chose to ignore (nohup) stays ignored. */
        if (previous[i].sa_handler == SIG_IGN)
            sigaction(end_signals[i], &previous[i], NULL);
    }
}

int mf__signals_on(struct mf_session *s)
{
    int rc = -EBUSY;

    pthread_mutex_lock(&signal_lock);
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *none = NULL;

        if (atomic_compare_exchange_strong(&session_signals_watched[i], &none, s)) {
            rc = 0;
            break;
        }
    }
    if (rc == 0 && watching++ == 0)
        install_end();
    pthread_mutex_unlock(&signal_lock);
    return rc;
}

void mf__signals_off(struct mf_session *s)
{
    pthread_mutex_lock(&signal_lock);
    for (uint32_t i = 0; i < MAX_WATCHED; i++) {
        struct mf_session *it = s;

        if (!atomic_compare_exchange_strong(&session_signals_watched[i], &it, NULL))
            continue;
        if (--watching == 0) {
            for (size_t n = 0; n < MF__ARRAY_SIZE(end_signals); n++)
                sigaction(end_signals[n], &previous[n], NULL);
        }
        break;
    }
    pthread_mutex_unlock(&signal_lock);
}
#undef KICK
#undef MAX_WATCHED

/* ==== core/session/slot.c ==== */
/* SPDX-License-Identifier: MIT */
/* slot.c - memory of the requests in hand: per reader, preallocated, reused last in first out. */


_Static_assert(sizeof(struct mf__slot) <= MF__SLOT_ALIGN, "a slot is found by masking a token");
_Static_assert(MF__BODY_LEAD <= MF__PAGE, "the page before a body is the transport's");
_Static_assert(MF__TOKENS * sizeof(uint64_t) == MF__SLOT_ALIGN, "one address per generation");

#define FIRST_SLAB 4u

/* WRITE's data begin where the header and its structure end: that shall be a page boundary. */
#define RECV_LEAD (MF__PAGE - sizeof(struct fuse_in_header) - sizeof(struct fuse_write_in))

static size_t recv_room(const struct mf_session *s)
{
    return mf__round_up(s->terms.max_write, MF__PAGE) + 2 * MF__PAGE;
}

static size_t body_room(const struct mf_session *s)
{
    /* Of the first page the transport has the end: for the reply header, or a short answer with it. Xattr values may be 64 KiB whatever max_write is. */
    size_t body = s->terms.max_write > 65536u ? s->terms.max_write : 65536u;

    /* Where the number of pages is not agreed upon, a read may have the kernel's default, whatever max_write is. */
    if (!(s->terms.flags & FUSE_MAX_PAGES) && body < 32 * MF__PAGE)
        body = 32 * MF__PAGE;
    return mf__round_up(body, MF__PAGE) + MF__PAGE;
}

static void slot_init(struct mf__slot *slot, struct mf__reader *r, uint8_t *recv, uint8_t *body)
{
    struct mf_session *s = r->session;

    slot->reader = r;
    slot->io.recv = recv + RECV_LEAD;
    slot->io.recv_size = recv_room(s) - RECV_LEAD;
    slot->io.body = body + MF__PAGE;
    slot->io.body_size = body_room(s) - MF__PAGE;
    slot->call.size = sizeof(slot->call);
    slot->call.session = s;
    slot->call.reader = r->index;
}

static int slab_add(struct mf__reader *r, uint32_t count)
{
    struct mf_session *s = r->session;
    size_t each = recv_room(s) + body_room(s);
    struct mf__slab *slab = calloc(1, sizeof(*slab));

    if (!slab)
        return -ENOMEM;
    if (mf__region_new(&slab->slots_mem, (size_t)count * MF__SLOT_ALIGN) < 0)
        goto no_slots;
    if (mf__region_new(&slab->buffers, count * each) < 0)
        goto no_buffers;
    slab->count = count;
    for (uint32_t i = count; i-- > 0;) {
        struct mf__slot *slot = (struct mf__slot *)(void *)(slab->slots_mem.base + (size_t)i * MF__SLOT_ALIGN);
        uint8_t *buffers = slab->buffers.base + i * each;

        slot_init(slot, r, buffers, buffers + recv_room(s));
        slot->next = r->free;
        r->free = slot;
    }
    r->slots += count;
    slab->next = atomic_load_explicit(&r->slabs, memory_order_relaxed);
    atomic_store_explicit(&r->slabs, slab, memory_order_release);
    return 0;
no_buffers:
    mf__region_free(&slab->slots_mem);
no_slots:
    free(slab);
    return -ENOMEM;
}

int mf__reader_new(struct mf_session *s, struct mf__channel *ch, struct mf__reader **out)
{
    struct mf__reader *r = NULL;

    if (posix_memalign((void **)&r, MF__CACHE_LINE, sizeof(*r)) != 0)
        return -ENOMEM;
    memset(r, 0, sizeof(*r));
    r->session = s;
    r->ch = ch;
    r->fd = ch->fd;
    r->cpu = -1;
    for (uint32_t i = 0; i < MF__TASK_FILES; i++)
        r->files.fd[i] = -1;
    atomic_init(&r->rx, ch);
    r->index = atomic_load(&s->reader_count);
    r->foreign = calloc(1, sizeof(*r->foreign));
    if (!r->foreign || slab_add(r, FIRST_SLAB) < 0) {
        free(r->foreign);
        free(r);
        return -ENOMEM;
    }
    mf__channel_get(ch);
    *out = r;
    return 0;
}

void mf__reader_free(struct mf__reader *r)
{
    struct mf__slab *slab = atomic_load(&r->slabs);

    while (slab) {
        struct mf__slab *next = slab->next;

        mf__region_free(&slab->slots_mem);
        mf__region_free(&slab->buffers);
        free(slab);
        slab = next;
    }
    free(r->foreign);
    free(r);
}

static struct mf__slot *pop_free(struct mf__reader *r)
{
    struct mf__slot *slot = r->free;

    if (!slot)
        slot = atomic_exchange_explicit(&r->returned, NULL, memory_order_acquire);
    if (slot)
        r->free = slot->next;
    return slot;
}

/* All slots are kept by handlers that answer later: wait until one comes back, or the session stops. */
static void wait_for_return(struct mf__reader *r)
{
    struct mf_session *s = r->session;
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&s->lock);
    atomic_store(&r->starving, 1);
    if (!atomic_load(&r->returned) && !atomic_load(&s->stop))
        (void)mf__cond_wait(&s->changed, &s->lock, MF_SECOND / 10);
    atomic_store(&r->starving, 0);
    pthread_mutex_unlock(&s->lock);
    pthread_setcancelstate(cancel, NULL);
}

struct mf__slot *mf__slot_take(struct mf__reader *r)
{
    uint32_t limit = r->session->opts.max_outstanding;
    struct mf__slot *slot;

    while (!(slot = pop_free(r))) {
        uint32_t more = r->slots < limit - r->slots ? r->slots : limit - r->slots;

        if (atomic_load(&r->session->stop))
            return NULL;
        if (more && slab_add(r, more) == 0)
            continue;
        mf__reader_flush(r);
        wait_for_return(r);
    }
    return slot;
}

static uint32_t state_of(uint32_t generation, bool open)
{
    return (generation % MF__TOKENS) << 1 | (open ? 1u : 0u);
}

void mf__slot_open(struct mf__slot *slot)
{
    slot->generation++;
    slot->kept = false;
    slot->inside = false;
    slot->returned = true; /* there is none yet */
    slot->dirents = 0;
    atomic_store_explicit(&slot->left, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->state, state_of(slot->generation, true), memory_order_release);
}

void mf__slot_recycle(struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;

    if (!r->spare) {
        r->spare = slot;
        return;
    }
    slot->next = r->free;
    r->free = slot;
}

void mf__slot_give_back(struct mf__slot *slot)
{
    struct mf__reader *r = slot->reader;
    struct mf_session *s = r->session;
    struct mf__slot *head = atomic_load_explicit(&r->returned, memory_order_relaxed);

    do {
        slot->next = head;
    } while (!atomic_compare_exchange_weak(&r->returned, &head, slot));
    if (atomic_load(&r->starving)) {
        pthread_mutex_lock(&s->lock);
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
    }
}

struct mf_req *mf__slot_token(struct mf__slot *slot)
{
    return (struct mf_req *)(void *)((uint8_t *)slot + (slot->generation % MF__TOKENS) * sizeof(uint64_t));
}

struct mf__slot *mf__token_slot(struct mf_req *req)
{
    return (struct mf__slot *)((uintptr_t)req & ~(uintptr_t)(MF__SLOT_ALIGN - 1));
}

static uint32_t token_generation(struct mf_req *req)
{
    return (uint32_t)((uintptr_t)req % MF__SLOT_ALIGN / sizeof(uint64_t));
}

int mf__token_claim(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);
    uint32_t open = state_of(token_generation(req), true);

    if (!atomic_compare_exchange_strong_explicit(&slot->state, &open, open & ~1u, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return -EALREADY;
    if (mf__self)
        mf__self->claimed = slot;
    return 0;
}

bool mf__token_is_open(struct mf_req *req)
{
    struct mf__slot *slot = mf__token_slot(req);

    return atomic_load_explicit(&slot->state, memory_order_acquire) == state_of(token_generation(req), true);
}

int mf__slots_each(struct mf_session *s, int (*fn)(struct mf__slot *slot, void *arg), void *arg)
{
    uint32_t readers = atomic_load_explicit(&s->reader_count, memory_order_acquire);

    for (uint32_t i = 0; i < readers; i++) {
        struct mf__slab *slab = atomic_load_explicit(&s->readers[i]->slabs, memory_order_acquire);

        for (; slab; slab = slab->next) {
            for (uint32_t n = 0; n < slab->count; n++) {
                void *slot = slab->slots_mem.base + (size_t)n * MF__SLOT_ALIGN;
                int rc = fn(slot, arg);

                if (rc)
                    return rc;
            }
        }
    }
    return 0;
}
#undef FIRST_SLAB
#undef RECV_LEAD

/* ==== core/session/stats.c ==== */
/* SPDX-License-Identifier: MIT */
/* stats.c - counting without shared lines, log lines with a limit. */


#define LOG_LINES_PER_SECOND 10u

uint64_t mf__now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * MF_SECOND + (uint64_t)ts.tv_nsec;
}

static void begin_timing(struct mf__reader *r, struct mf__slot *slot, uint32_t opcode)
{
    slot->received_ns = mf__now_ns();
    atomic_store_explicit(&r->caller, slot->io.msg.hdr.pid, memory_order_relaxed);
    slot->sampled = r->sample % MF__LATENCY_SAMPLE == 0;
    r->counts_sleeps = r->cpu >= 0 && opcode < MF_STATS_OPS &&
                       atomic_load_explicit(&r->session->overlong[opcode], memory_order_relaxed) > 0;
    if (r->counts_sleeps)
        r->sleeps = mf__thread_sleeps();
}

void mf__count_request(struct mf__reader *r, struct mf__slot *slot)
{
    const struct fuse_in_header *hdr = &slot->io.msg.hdr;
    uint32_t op = hdr->opcode < MF_STATS_OPS ? hdr->opcode : 0;

    mf__count(&r->stats.requests, 1);
    mf__count(&r->stats.ops[op].requests, 1);
    mf__count(&r->stats.ops[op].bytes_in, hdr->len);
    if (slot->row->reply == MF__REPLY_NEVER)
        mf__count(&r->stats.no_reply, 1);
    slot->received_ns = 0;
    /* While readers have rings of their own, all are: once handlers wait no more it shall be seen soon. */
    if (++r->sample % MF__LATENCY_SAMPLE == 0 || slot->io.own)
        begin_timing(r, slot, hdr->opcode);
}

/* Several readers may write at once: then one of them does not count. */
static void session_stats_judge(_Atomic uint8_t *record, bool bad)
{
    uint8_t before = atomic_load_explicit(record, memory_order_relaxed);
    uint8_t after = before < 2 ? 1 : before - 1;

    if (bad)
        after = before > MF__SLOW_LIMIT ? 2 * MF__SLOW_LIMIT : before + MF__SLOW_LIMIT;
    if (after != before)
        atomic_store_explicit(record, after, memory_order_relaxed);
}

void mf__judge_unhandled(struct mf_session *s)
{
    for (uint32_t opcode = 0; opcode < MF_STATS_OPS; opcode++) {
        uint8_t op = mf__opcode(opcode)->slot;

        if (!op || !(s->implemented & (1ull << op)))
            session_stats_judge(&s->slowness[opcode], false);
    }
}

bool mf__op_may_wait(const struct mf_session *s, uint32_t opcode)
{
    uint8_t slowness = opcode < MF_STATS_OPS ? atomic_load_explicit(&s->slowness[opcode], memory_order_relaxed) : 0;

    return slowness == 0 || slowness > MF__SLOW_LIMIT;
}

static void note_prompt(struct mf_session *s, uint32_t opcode)
{
    bool prompt = !mf__op_may_wait(s, opcode) &&
                  atomic_load_explicit(&s->lingers[opcode], memory_order_relaxed) <= MF__SLOW_LIMIT;

    if (prompt != atomic_load_explicit(&s->prompt[opcode], memory_order_relaxed))
        atomic_store_explicit(&s->prompt[opcode], prompt, memory_order_relaxed);
}

enum verdict { session_stats_FAST, SLOW, UNKNOWN };

/*
 * One that is bound to a CPU may have stood back there for clients that had work, or computed, where no other reader
 * could have done anything meanwhile: what counts is that it slept. To ask for that takes a system call, so it is done
 * where handlers have taken long of late.
 */
static enum verdict judge_time(const struct mf__reader *r, uint32_t opcode, uint64_t ns)
{
    _Atomic uint8_t *overlong = &r->session->overlong[opcode];
    uint8_t left = atomic_load_explicit(overlong, memory_order_relaxed);

    if (ns <= MF__SLOW_NS) {
        if (left)
            atomic_store_explicit(overlong, left - 1, memory_order_relaxed);
        return session_stats_FAST;
    }
    if (r->cpu < 0)
        return SLOW;
    atomic_store_explicit(overlong, UINT8_MAX, memory_order_relaxed); /* one in a hundred shall be known by the next */
    if (!r->counts_sleeps)
        return UNKNOWN;
    return mf__thread_sleeps() != r->sleeps ? SLOW : session_stats_FAST;
}

void mf__count_handler(struct mf__reader *r, const struct mf__slot *slot)
{
    struct mf_session *s = r->session;
    uint32_t opcode = slot->io.msg.hdr.opcode;
    uint64_t now_ns = mf__now_ns();
    enum verdict verdict;

    if (opcode >= MF_STATS_OPS)
        return;
    verdict = judge_time(r, opcode, now_ns - slot->received_ns);
    mf__count(&r->stats.timed, verdict != UNKNOWN);
    mf__count(&r->stats.slow, verdict == SLOW);
    if (verdict != UNKNOWN)
        session_stats_judge(&s->slowness[opcode], verdict == SLOW);
    /* Of an answer that went out at once the client may have had the CPU since: that is tried again before long. */
    session_stats_judge(&s->lingers[opcode], slot->inside && slot->io.receives_next && now_ns - slot->answered_ns > MF__LINGER_NS);
    note_prompt(s, opcode);
}

static uint32_t bucket_of(uint64_t ns)
{
    uint32_t bits = ns < 2 ? 0 : 64u - (uint32_t)__builtin_clzll(ns - 1);

    return bits < MF_STATS_BUCKETS ? bits : MF_STATS_BUCKETS - 1;
}

/* By another thread than the reader's. */
MF__COLD static void count_foreign_reply(struct mf__counters *c, uint32_t op, int error, uint64_t bytes)
{
    atomic_fetch_add_explicit(&c->replies, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->ops[op].bytes_out, bytes, memory_order_relaxed);
    if (error)
        atomic_fetch_add_explicit(&c->ops[op].errors, 1, memory_order_relaxed);
}

static void count_own_reply(struct mf__counters *c, uint32_t op, int error, uint64_t bytes)
{
    mf__count(&c->replies, 1);
    mf__count(&c->ops[op].bytes_out, bytes);
    if (error)
        mf__count(&c->ops[op].errors, 1);
}

/* Of a request that is timed. */
static void count_latency(struct mf__slot *slot, bool inside)
{
    struct mf__reader *r = slot->reader;
    uint64_t now_ns = mf__now_ns();
    uint32_t b = bucket_of(now_ns - slot->received_ns);

    if (inside)
        slot->answered_ns = now_ns;
    if (!slot->sampled || (r->session->opts.flags & MF_OPT_NO_LATENCY))
        return;
    if (inside)
        mf__count(&r->stats.latency[b], 1);
    else
        atomic_fetch_add_explicit(&r->foreign->latency[b], 1, memory_order_relaxed);
}

void mf__count_reply(struct mf__slot *slot, int error, size_t bytes)
{
    struct mf__reader *r = slot->reader;
    uint32_t op = slot->io.msg.hdr.opcode < MF_STATS_OPS ? slot->io.msg.hdr.opcode : 0;
    bool inside = mf__self == r;
    uint64_t total = bytes + sizeof(struct fuse_out_header);

    if (inside)
        count_own_reply(&r->stats, op, error, total);
    else
        count_foreign_reply(r->foreign, op, error, total);
    if (slot->received_ns)
        count_latency(slot, inside);
}

#define SUM(r, field)                                                \
    (atomic_load_explicit(&(r)->stats.field, memory_order_relaxed) + \
     atomic_load_explicit(&(r)->foreign->field, memory_order_relaxed))

uint64_t mf__reader_bytes(const struct mf__reader *r)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < MF_STATS_OPS; i++)
        bytes += atomic_load_explicit(&r->stats.ops[i].bytes_in, memory_order_relaxed) +
                 atomic_load_explicit(&r->stats.ops[i].bytes_out, memory_order_relaxed);
    return bytes;
}

static void sum_stats(struct mf__reader *r, struct mf_reader_stats *st)
{
    st->reader = r->index;
    st->fd = r->fd;
    st->tid = atomic_load(&r->tid);
    st->replies = SUM(r, replies);
    st->requests = SUM(r, requests);
    st->wakeups = SUM(r, wakeups);
    st->malformed = SUM(r, malformed);
    st->forgotten = SUM(r, forgotten);
    st->interrupts = SUM(r, interrupts);
    st->in_flight = st->requests - SUM(r, no_reply);
    st->in_flight = st->in_flight > st->replies ? st->in_flight - st->replies : 0;
    for (uint32_t i = 0; i < MF_STATS_OPS; i++) {
        st->ops[i].requests = SUM(r, ops[i].requests);
        st->ops[i].errors = SUM(r, ops[i].errors);
        st->ops[i].bytes_in = SUM(r, ops[i].bytes_in);
        st->ops[i].bytes_out = SUM(r, ops[i].bytes_out);
        st->errors += st->ops[i].errors;
        st->bytes_in += st->ops[i].bytes_in;
        st->bytes_out += st->ops[i].bytes_out;
    }
    for (uint32_t i = 0; i < MF_STATS_BUCKETS; i++)
        st->latency[i] = SUM(r, latency[i]);
}

int mf_session_stats(struct mf_session *s, uint32_t reader, struct mf_reader_stats *out)
{
    struct mf_reader_stats st = { .size = sizeof(st) };
    uint32_t room = out->size < sizeof(st) ? out->size : (uint32_t)sizeof(st);

    if (room < offsetof(struct mf_reader_stats, requests))
        return -EINVAL;
    if (reader >= atomic_load_explicit(&s->reader_count, memory_order_acquire))
        return -ENOENT;
    sum_stats(s->readers[reader], &st);
    st.size = out->size;
    memcpy(out, &st, room);
    return 0;
}

static int write_line(int fd, const char *line, int len)
{
    return len < 0 || write(fd, line, (size_t)len) < 0 ? -EIO : 0;
}

static int write_reader(struct mf_session *s, uint32_t reader, int fd)
{
    struct mf_reader_stats st = { .size = sizeof(st) };
    char line[512];
    int rc = mf_session_stats(s, reader, &st);

    if (rc < 0)
        return rc;
    return write_line(fd, line,
                      snprintf(line, sizeof(line),
                               "{\"reader\":%u,\"fd\":%d,\"requests\":%llu,\"replies\":%llu,\"errors\":%llu,"
                               "\"bytes_in\":%llu,\"bytes_out\":%llu,\"interrupts\":%llu}\n",
                               st.reader, st.fd, (unsigned long long)st.requests, (unsigned long long)st.replies,
                               (unsigned long long)st.errors, (unsigned long long)st.bytes_in,
                               (unsigned long long)st.bytes_out, (unsigned long long)st.interrupts));
}

static int write_ring(struct mf_session *s, uint32_t ring, int fd)
{
    struct mf__crew *c = &s->crews[1 + ring];
    struct mf__ring_counts n;
    char line[512];

    n = c->counts;
    if (ring < s->ring_count)
        mf__ring_counts(s->rings[ring], &n);
    return write_line(
        fd, line,
        snprintf(line, sizeof(line),
                 "{\"ring\":%u,\"readers\":%u,\"requests\":%llu,\"behind\":%llu,\"own\":%llu,\"waits\":%llu,"
                 "\"batches\":%llu,\"calls\":%llu,\"blocked\":%llu,\"nudges\":%llu,\"led\":%llu,"
                 "\"growths\":%llu,\"shrinks\":%llu}\n",
                 ring, atomic_load(&c->members), (unsigned long long)n.requests, (unsigned long long)n.behind,
                 (unsigned long long)n.own, (unsigned long long)n.waits, (unsigned long long)n.batches,
                 (unsigned long long)n.calls, (unsigned long long)n.blocked, (unsigned long long)n.nudges,
                 (unsigned long long)atomic_load(&c->led), (unsigned long long)atomic_load(&c->growths),
                 (unsigned long long)atomic_load(&c->shrinks)));
}

static int write_device(struct mf_session *s, int fd)
{
    struct mf__crew *c = &s->crews[0];
    char line[512];

    return write_line(fd, line,
                      snprintf(line, sizeof(line),
                               "{\"device\":0,\"readers\":%u,\"blocked\":%llu,\"opened\":%llu,\"growths\":%llu,"
                               "\"shrinks\":%llu}\n",
                               atomic_load(&c->members), (unsigned long long)atomic_load(&s->door.blocked),
                               (unsigned long long)atomic_load(&s->door.opened),
                               (unsigned long long)atomic_load(&c->growths),
                               (unsigned long long)atomic_load(&c->shrinks)));
}

int mf_session_write_stats(struct mf_session *s, int fd)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < atomic_load(&s->reader_count); i++)
        rc = write_reader(s, i, fd);
    pthread_mutex_lock(&s->lock); /* crews come when it runs, and the rings go at the end */
    if (rc == 0 && s->crew_count)
        rc = write_device(s, fd);
    for (uint32_t i = 0; rc == 0 && i + 1 < s->crew_count; i++)
        rc = write_ring(s, i, fd);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* One word holds the second and the lines in it. */
static bool within_budget(struct mf_session *s)
{
    uint64_t second = mf__now_ns() / MF_SECOND;
    uint64_t old = atomic_load(&s->log_budget);
    uint64_t next;

    do {
        next = old >> 32 == second ? old + 1 : second << 32 | 1;
        if ((uint32_t)next > LOG_LINES_PER_SECOND)
            return false;
    } while (!atomic_compare_exchange_weak(&s->log_budget, &old, next));
    return true;
}

void mf__log_limited(struct mf_session *s, uint32_t level, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (!within_budget(s))
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    mf__logf(&s->log, level, "%s", text);
}
#undef LOG_LINES_PER_SECOND
#undef SUM

/* ==== core/session/stop.c ==== */
/* SPDX-License-Identifier: MIT */
/* stop.c - the end of a session: unmount, let readers leave, and force where something does not end. */


#define AFTER_ABORT_NS (2 * MF_SECOND) /* how long handlers have to notice that their mount was aborted */

void mf__stop_request(struct mf_session *s, int result)
{
    int none = 0;
    ssize_t ignored;

    if (result)
        atomic_compare_exchange_strong(&s->result, &none, result);
    if (atomic_exchange(&s->ending, 1) == 0) {
        ignored = write(s->event[1], "", 1);
        (void)ignored;
    }
}

void mf_session_stop(struct mf_session *s)
{
    mf__stop_request(s, 0);
}

/* Wait for s->changed until `deadline` (monotonic) or for `slice` ns, whichever comes first. Lock held. */
static void wait_changed(struct mf_session *s, uint64_t deadline, uint64_t slice)
{
    uint64_t now = mf__now_ns();

    if (now + slice > deadline)
        slice = deadline > now ? deadline - now : 0;
    (void)mf__cond_wait(&s->changed, &s->lock, slice);
}

/* ---- unmounting, which may wait for dirty pages and so for the filesystem itself ------------------- */

struct unmounting {
    struct mf_session *s;
    bool done;
    int rc;
};

static void *unmount_main(void *arg)
{
    struct unmounting *u = arg;
    int rc = mf__unmount(&u->s->mount);

    pthread_mutex_lock(&u->s->lock);
    u->rc = rc;
    u->done = true;
    pthread_cond_broadcast(&u->s->changed);
    pthread_mutex_unlock(&u->s->lock);
    return NULL;
}

/* The kernel gives a connection's number to the next mount as soon as it is gone: then it must not be aborted. */
static bool connection_lives(struct mf_session *s)
{
    struct pollfd p = { .fd = -1, .events = POLLIN };

    pthread_mutex_lock(&s->lock);
    if (s->channel_count)
        p.fd = s->channels[0]->fd;
    pthread_mutex_unlock(&s->lock);
    return p.fd >= 0 && poll(&p, 1, 0) >= 0 && !(p.revents & (POLLERR | POLLNVAL));
}

static void force(struct mf_session *s)
{
    int null;

    if (!connection_lives(s))
        return;
    if (s->terms.connection && mf__abort_connection(s->terms.connection) == 0)
        return;
    /* The last descriptor's end aborts the connection, too. A late answer then goes nowhere, harmlessly. */
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; null >= 0 && i < s->channel_count; i++) {
        if (s->channels[i]->fd >= 0)
            dup2(null, s->channels[i]->fd);
    }
    pthread_mutex_unlock(&s->lock);
    if (null >= 0)
        close(null);
}

static int unmount_locked(struct mf_session *s)
{
    struct unmounting u = { .s = s };
    uint64_t deadline = mf__now_ns() + s->opts.stop_timeout_ms * 1000000ull;
    pthread_t thread;
    int rc = 0;

    if (!s->mounted)
        return 0;
    if (pthread_create(&thread, NULL, unmount_main, &u) != 0)
        return mf__unmount(&s->mount);
    pthread_mutex_lock(&s->lock);
    while (!u.done && mf__now_ns() < deadline)
        wait_changed(s, deadline, MF_SECOND);
    if (!u.done) {
        pthread_mutex_unlock(&s->lock);
        mf__logf(&s->log, MF_LOG_ERROR, "unmounting takes longer than %u ms: the connection is aborted",
                 s->opts.stop_timeout_ms);
        force(s);
        rc = -ETIMEDOUT;
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_join(thread, NULL);
    s->mounted = false;
    s->unmounted = u.rc == 0;
    return rc ? rc : u.rc;
}

int mf__unmount_own(struct mf_session *s)
{
    int rc;

    pthread_mutex_lock(&s->unmounting);
    rc = unmount_locked(s);
    pthread_mutex_unlock(&s->unmounting);
    return rc;
}

/* ---- readers ------------------------------------------------------------------------------------- */

static void kick_all(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++) {
        if (atomic_load(&s->readers[i]->state) == MF__READER_RECEIVING)
            mf__kick(s->readers[i]);
    }
}

static bool wait_readers(struct mf_session *s, uint64_t deadline)
{
    uint64_t slice = MF_SECOND / 1000;
    bool gone;

    pthread_mutex_lock(&s->lock);
    while (atomic_load(&s->alive) && mf__now_ns() < deadline) {
        kick_all(s);
        pthread_cond_broadcast(&s->changed); /* a reader may wait for a slot, */
        mf__door_tell(s);                    /* or for a seat */
        wait_changed(s, deadline, slice);
        if (slice < MF_SECOND / 100)
            slice *= 2;
    }
    gone = atomic_load(&s->alive) == 0;
    pthread_mutex_unlock(&s->lock);
    return gone;
}

static int release_one(struct mf__slot *slot, void *arg)
{
    (void)arg;
    if (atomic_load(&slot->unique) != 0 && mf__token_claim(mf__slot_token(slot)) == 0)
        mf__send_error(slot, -ENOTCONN);
    return 0;
}

/* Requests that were kept for later and never answered: now somebody else must not. */
void mf__release_kept(struct mf_session *s)
{
    mf__slots_each(s, release_one, NULL);
}

/*
 * Whoever has files open after a lazy unmount goes on with requests, and one that is on its way into an entry as the ring
 * closes fails with ECANCELED, of which a client makes nothing. So the connection ends first, with ENOTCONN or ECONNABORTED
 * as on the device, and what is on its way arrives.
 */
static void shut_rings(struct mf_session *s)
{
    if (s->ring_count && !s->abandoned) {
        mf__release_kept(s); /* while that still reaches its client */
        if (s->unmounted && (!connection_lives(s) || mf__abort_connection(s->terms.connection) == 0))
            mf__rings_drain(s);
    }
    mf__rings_shut(s);
}

/* Those who do not leave by themselves. */
static void force_readers(struct mf_session *s)
{
    mf__logf(&s->log, MF_LOG_ERROR, "%u readers are still in handlers after %u ms: the connection is aborted",
             atomic_load(&s->alive), s->opts.stop_timeout_ms);
    force(s);
    if (wait_readers(s, mf__now_ns() + AFTER_ABORT_NS))
        return;
    mf__logf(&s->log, MF_LOG_ERROR, "handlers of %u readers do not return; they are left behind",
             atomic_load(&s->alive));
    s->abandoned = true;
}

int mf__end_service(struct mf_session *s)
{
    uint64_t limit = s->opts.stop_timeout_ms * 1000000ull;
    int rc = 0;

    if (s->monitor_on)
        mf__monitor_wake(s); /* readers are not to yield any more */
    if (!(s->opts.flags & MF_OPT_NO_UNMOUNT))
        rc = mf__unmount_own(s);
    mf__monitor_stop(s);
    atomic_store(&s->stop, 1);
    if (!wait_readers(s, mf__now_ns() + limit)) {
        force_readers(s);
        rc = -ETIMEDOUT;
    }
    shut_rings(s);
    return rc;
}
#undef AFTER_ABORT_NS

/* ==== core/session/tasks.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * tasks.c - what the system says of readers' threads, and text files of its own.
 *
 * The monitor reads the same few files many times a second, on a CPU that has just woken: opening one anew costs some
 * 80 us there, reading one that is open 20. So those of the first readers stay open.
 */
#include <sys/resource.h>


#define KEPT_OPEN 32u /* readers: a machine of many CPUs shall keep its descriptors */

uint32_t mf__read_numbers(const char *text, uint64_t *out, uint32_t count)
{
    uint32_t n = 0;
    char *end;

    for (; n < count; n++, text = end) {
        out[n] = strtoull(text, &end, 10);
        if (end == text)
            break;
    }
    return n;
}

static int session_tasks_read_open(int fd, char *text, size_t room)
{
    ssize_t n = pread(fd, text, room - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return n > 0 ? 0 : -EIO;
}

int mf__read_text(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    if (fd < 0)
        return -errno;
    rc = session_tasks_read_open(fd, text, room);
    close(fd);
    return rc;
}

static void forget(struct mf__task_files *f)
{
    for (uint32_t i = 0; i < MF__TASK_FILES; i++) {
        if (f->fd[i] >= 0)
            close(f->fd[i]);
        f->fd[i] = -1;
    }
}

static int read_task_file(struct mf__reader *r, enum mf__task_file file, char *text, size_t room)
{
    static const char *const names[] = {
        [MF__TASK_STAT] = "stat", [MF__TASK_SCHEDSTAT] = "schedstat", [MF__TASK_CHILDREN] = "children"
    };
    uint32_t tid = atomic_load(&r->tid);
    struct mf__task_files *f = &r->files;
    char path[64];

    if (!tid)
        return -ESRCH;
    if (f->tid != tid)
        forget(f);
    f->tid = tid;
    if (f->fd[file] >= 0)
        return session_tasks_read_open(f->fd[file], text, room);
    snprintf(path, sizeof(path), "/proc/self/task/%u/%s", tid, names[file]);
    if (r->index >= KEPT_OPEN)
        return mf__read_text(path, text, room);
    f->fd[file] = open(path, O_RDONLY | O_CLOEXEC);
    return f->fd[file] < 0 ? -errno : session_tasks_read_open(f->fd[file], text, room);
}

void mf__tasks_forget(struct mf_session *s)
{
    for (uint32_t i = 0; i < atomic_load(&s->reader_count); i++)
        forget(&s->readers[i]->files);
}

bool mf__task_sleeps(struct mf__reader *r)
{
    char text[256];
    char *p;

    if (read_task_file(r, MF__TASK_STAT, text, sizeof(text)) < 0)
        return true;
    p = strrchr(text, ')');
    return !p || !p[1] || p[2] != 'R';
}

int mf__task_schedstat(struct mf__reader *r, uint64_t at[3])
{
    char text[128];
    int rc = read_task_file(r, MF__TASK_SCHEDSTAT, text, sizeof(text));

    if (rc < 0)
        return rc;
    return mf__read_numbers(text, at, 3) == 3 ? 0 : -EIO;
}

int mf__task_children(struct mf__reader *r, char *text, size_t room)
{
    int rc = read_task_file(r, MF__TASK_CHILDREN, text, room);

    return rc == -EIO ? 0 : rc; /* an empty file is what is there for the most part */
}

uint64_t mf__thread_sleeps(void)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    struct rusage usage;

    if (getrusage(RUSAGE_THREAD, &usage) == 0)
        return (uint64_t)usage.ru_nvcsw;
#endif
    return 0;
}

uint64_t mf__task_ran_ns(const struct mf__reader *r)
{
#if defined(__linux__) && !defined(MF_NO_LINUX)
    uint32_t tid = atomic_load(&r->tid);
    clockid_t clock = (clockid_t)(~tid << 3 | 6u); /* as clock_getcpuclockid(3) makes it, for one thread */
    struct timespec ran;

    if (tid && clock_gettime(clock, &ran) == 0)
        return (uint64_t)ran.tv_sec * MF_SECOND + (uint64_t)ran.tv_nsec;
#else
    (void)r;
#endif
    return 0;
}
#undef KEPT_OPEN

/* ==== core/session/typed.c ==== */
/* SPDX-License-Identifier: MIT */
/* typed.c - the typed C operations behind the one upcall: which exist, and their arguments. */

typedef void read_fn(struct mf_req *req, uint64_t node, const struct mf_read_in *in, void *user);
typedef void release_fn(struct mf_req *req, uint64_t node, const struct mf_release_in *in, void *user);

static void call_read(read_fn *fn, const struct mf_call *c, void *user)
{
    struct mf_read_in in = { .fh = c->fh,
                             .offset = c->offset,
                             .length = c->length,
                             .lock_owner = c->lock_owner,
                             .flags = c->flags,
                             .read_flags = c->op_flags };

    fn(c->req, c->node, &in, user);
}

static void call_release(release_fn *fn, const struct mf_call *c, void *user)
{
    struct mf_release_in in = {
        .fh = c->fh, .lock_owner = c->lock_owner, .flags = c->flags, .release_flags = c->op_flags
    };

    fn(c->req, c->node, &in, user);
}

static void call_write(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    struct mf_write_in in = { .fh = c->fh,
                              .offset = c->offset,
                              .length = c->length,
                              .lock_owner = c->lock_owner,
                              .data = c->data,
                              .flags = c->flags,
                              .write_flags = c->op_flags };

    ops->write(c->req, c->node, &in, user);
}

static void call_setattr(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    struct mf_setattr_in in = { .fh = c->fh, .lock_owner = c->lock_owner, .valid = c->valid, .attr = c->attr };

    ops->setattr(c->req, c->node, &in, user);
}

/* On names, beside LOOKUP. */
static void call_name(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    switch (c->op) {
    case MF_OP_SYMLINK: ops->symlink(c->req, c->node, c->name, c->name2, user); break;
    case MF_OP_MKNOD: ops->mknod(c->req, c->node, c->name, c->mode, c->rdev, user); break;
    case MF_OP_MKDIR: ops->mkdir(c->req, c->node, c->name, c->mode, user); break;
    case MF_OP_UNLINK: ops->unlink(c->req, c->node, c->name, user); break;
    case MF_OP_RMDIR: ops->rmdir(c->req, c->node, c->name, user); break;
    case MF_OP_RENAME: ops->rename(c->req, c->node, c->name, c->node2, c->name2, c->flags, user); break;
    case MF_OP_LINK: ops->link(c->req, c->node, c->node2, c->name2, user); break;
    case MF_OP_CREATE: ops->create(c->req, c->node, c->name, c->mode, c->flags, user); break;
    case MF_OP_SETXATTR: ops->setxattr(c->req, c->node, c->name, c->data, c->length, c->flags, user); break;
    case MF_OP_GETXATTR: ops->getxattr(c->req, c->node, c->name, c->length, user); break;
    case MF_OP_REMOVEXATTR: ops->removexattr(c->req, c->node, c->name, user); break;
    default: break;
    }
}

/* What is seldom asked for, apart so that the rest stays small. */
static void call_rest(const struct mf_ops *ops, struct mf_call *c, void *user)
{
    switch (c->op) {
    case MF_OP_FORGET: ops->forget(c->req, c->data, c->length, user); break;
    case MF_OP_SETATTR: call_setattr(ops, c, user); break;
    case MF_OP_READLINK: ops->readlink(c->req, c->node, user); break;
    case MF_OP_STATFS: ops->statfs(c->req, c->node, user); break;
    case MF_OP_ACCESS: ops->access(c->req, c->node, c->flags, user); break;
    case MF_OP_LISTXATTR: ops->listxattr(c->req, c->node, c->length, user); break;
    case MF_OP_FSYNC: ops->fsync(c->req, c->node, c->fh, c->flags & 1, user); break;
    case MF_OP_OPENDIR: ops->opendir(c->req, c->node, c->flags, user); break;
    case MF_OP_READDIR: call_read(ops->readdir, c, user); break;
    case MF_OP_RELEASEDIR: call_release(ops->releasedir, c, user); break;
    case MF_OP_FSYNCDIR: ops->fsyncdir(c->req, c->node, c->fh, c->flags & 1, user); break;
    default: call_name(ops, c, user); break;
    }
}

int32_t mf__typed_upcall(struct mf_call *c, void *user)
{
    const struct mf_ops *ops = &c->session->typed;

    switch (c->op) {
    case MF_OP_LOOKUP: ops->lookup(c->req, c->node, c->name, user); break;
    case MF_OP_GETATTR: ops->getattr(c->req, c->node, c->fh, user); break;
    case MF_OP_OPEN: ops->open(c->req, c->node, c->flags, user); break;
    case MF_OP_READ: call_read(ops->read, c, user); break;
    case MF_OP_WRITE: call_write(ops, c, user); break;
    case MF_OP_FLUSH: ops->flush(c->req, c->node, c->fh, c->lock_owner, user); break;
    case MF_OP_RELEASE: call_release(ops->release, c, user); break;
    default: call_rest(ops, c, user); break;
    }
    return MF_ANSWERED;
}

#define BIT(op, handler) ((uint64_t)((handler) != NULL) << (op))

uint64_t mf__typed_mask(const struct mf_ops *o)
{
    return BIT(MF_OP_LOOKUP, o->lookup) | BIT(MF_OP_FORGET, o->forget) | BIT(MF_OP_GETATTR, o->getattr) |
           BIT(MF_OP_SETATTR, o->setattr) | BIT(MF_OP_READLINK, o->readlink) | BIT(MF_OP_SYMLINK, o->symlink) |
           BIT(MF_OP_MKNOD, o->mknod) | BIT(MF_OP_MKDIR, o->mkdir) | BIT(MF_OP_UNLINK, o->unlink) |
           BIT(MF_OP_RMDIR, o->rmdir) | BIT(MF_OP_RENAME, o->rename) | BIT(MF_OP_LINK, o->link) |
           BIT(MF_OP_OPEN, o->open) | BIT(MF_OP_CREATE, o->create) | BIT(MF_OP_READ, o->read) |
           BIT(MF_OP_WRITE, o->write) | BIT(MF_OP_FLUSH, o->flush) | BIT(MF_OP_RELEASE, o->release) |
           BIT(MF_OP_FSYNC, o->fsync) | BIT(MF_OP_OPENDIR, o->opendir) | BIT(MF_OP_READDIR, o->readdir) |
           BIT(MF_OP_RELEASEDIR, o->releasedir) | BIT(MF_OP_FSYNCDIR, o->fsyncdir) | BIT(MF_OP_STATFS, o->statfs) |
           BIT(MF_OP_ACCESS, o->access) | BIT(MF_OP_SETXATTR, o->setxattr) | BIT(MF_OP_GETXATTR, o->getxattr) |
           BIT(MF_OP_LISTXATTR, o->listxattr) | BIT(MF_OP_REMOVEXATTR, o->removexattr);
}
#undef BIT

/* ==== core/transport/clone.c ==== */
/* SPDX-License-Identifier: MIT */
/* clone.c - further descriptors of a connection, and what the system tells about one. Linux only. */


#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define FUSE_DEVICE_MAJOR 10u /* "misc" */
#define FUSE_DEVICE_MINOR 229u

int mf__clone_fd(int fd, int *out)
{
    uint32_t master = (uint32_t)fd;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    int rc;

    if (clone < 0)
        return -errno;
    if (ioctl(clone, FUSE_DEV_IOC_CLONE, &master) < 0) {
        rc = -errno;
        close(clone);
        return rc;
    }
    *out = clone;
    return 0;
}

int mf__is_fuse_fd(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISCHR(st.st_mode) || major(st.st_rdev) != FUSE_DEVICE_MAJOR || minor(st.st_rdev) != FUSE_DEVICE_MINOR)
        return -ENOTTY;
    return 1;
}

uint64_t mf__connection_number(int fd)
{
    char path[64];
    char line[128];
    unsigned long long number = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    file = fopen(path, "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "fuse_connection: %llu", &number) == 1)
            break;
    }
    fclose(file);
    return number;
}

#else

int mf__clone_fd(int fd, int *out)
{
    (void)fd;
    (void)out;
    return -ENOTSUP;
}

int mf__is_fuse_fd(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    return S_ISCHR(st.st_mode) ? 1 : -ENOTTY;
}

uint64_t mf__connection_number(int fd)
{
    (void)fd;
    return 0;
}

#endif
#undef FUSE_DEVICE_MAJOR
#undef FUSE_DEVICE_MINOR

/* ==== core/transport/device.c ==== */
/* SPDX-License-Identifier: MIT */
/* device.c - messages over a descriptor of /dev/fuse, its own or a clone. */


/* Bytes of a reply that are cheaper to copy behind the header than to hand over as a second piece. */
#define COPY_LIMIT 8192u

#define MAX_OVERTAKEN 1000 /* requests in a row that the end of the mount overtook */

#define HEADER_SIZE sizeof(struct fuse_out_header)
#define SHORT_BODY (MF__BODY_LEAD - HEADER_SIZE)

static int device_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    ssize_t n;

    /* Afterwards a length that is not 0 says that a whole request is there: the buffer is the journal. */
    memset(spare->recv, 0, sizeof(uint32_t));
    n = read(ch->fd, spare->recv, spare->recv_size);
    /* Said of each request that the end of the mount overtook, too: what comes after them tells whether it was aborted. */
    for (int i = 0; n < 0 && errno == ECONNABORTED && i < MAX_OVERTAKEN; i++)
        n = read(ch->fd, spare->recv, spare->recv_size);
    if (n < 0) {
        /* The request went away while it was copied: there may be another. */
        return errno == ENOENT ? -EAGAIN : -errno;
    }
    if (mf__msg_split(&spare->msg, spare->recv, (size_t)n) < 0)
        spare->msg.hdr.opcode = 0;
    *got = spare;
    return 0;
}

static int written(ssize_t n)
{
    return n < 0 ? -errno : 0;
}

/* The body begins a page, its header ends another: the kernel looks up a single one where both lie in it. */
static int send_short(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                      int n)
{
    uint8_t *head = io->body - MF__BODY_LEAD;
    size_t at = HEADER_SIZE;

    for (int i = 0; i < n; at += iov[i++].iov_len) {
        if (iov[i].iov_len)
            memcpy(head + at, iov[i].iov_base, iov[i].iov_len);
    }
    mf__put_header(head, at - HEADER_SIZE, error, unique);
    return written(write(ch->fd, head, at));
}

static int device_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                       int n)
{
    uint8_t *head = io->body - HEADER_SIZE;
    size_t body = mf__iov_length(iov, n);
    struct iovec all[8];

    if (body <= SHORT_BODY)
        return send_short(ch, io, unique, error, iov, n);
    mf__put_header(head, body, error, unique);
    if (n == 1 && body <= COPY_LIMIT && iov[0].iov_base != io->body)
        memcpy(io->body, iov[0].iov_base, body);
    else if (n != 1 || iov[0].iov_base != io->body)
        goto gather;
    return written(write(ch->fd, head, HEADER_SIZE + body));
gather:
    if ((size_t)n >= MF__ARRAY_SIZE(all))
        return -EINVAL;
    all[0] = (struct iovec){ .iov_base = head, .iov_len = HEADER_SIZE };
    memcpy(all + 1, iov, sizeof(*iov) * (size_t)n);
    return written(writev(ch->fd, all, n + 1));
}

static int device_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    return written(write(ch->fd, msg, len));
}

static int device_clone(struct mf__channel *ch, struct mf__channel **out)
{
    int fd;
    int rc = mf__clone_fd(ch->fd, &fd);

    if (rc < 0)
        return rc;
    rc = mf__device_channel(fd, out);
    if (rc < 0)
        close(fd);
    return rc;
}

static void device_close(struct mf__channel *ch)
{
    if (ch->fd >= 0)
        close(ch->fd);
    free(ch);
}

static const struct mf__transport device_transport = {
    .name = "device",
    .kind = MF_TRANSPORT_DEVICE,
    .receive = device_receive,
    .send = device_send,
    .write_raw = device_write_raw,
    .clone = device_clone,
    .close = device_close,
};

int mf__device_channel(int fd, struct mf__channel **out)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return -ENOMEM;
    ch->ops = &device_transport;
    ch->fd = fd;
    atomic_init(&ch->refs, 1);
    *out = ch;
    return 0;
}
#undef COPY_LIMIT
#undef HEADER_SIZE
#undef MAX_OVERTAKEN
#undef SHORT_BODY

/* ==== core/transport/memory.c ==== */
/* SPDX-License-Identifier: MIT */
/* memory.c - messages to and from a virtual kernel in the same process. */

/* core/vkernel/vkernel.h */
/* SPDX-License-Identifier: MIT */
/*
 * vkernel.h - the kernel's side of one connection, in memory.
 *
 *   queue.c    what is queued, who gets it, what a read delivers        } the protocol's rules: no waiting,
 *   reply.c    what a write may be: answers                             } all called with the lock held
 *   notify.c   what a write may be: notifications                       }
 *   uring.c    queues of a possible CPU, their entries, commands }
 *   vkernel.c  lifetime, channels, and everything that waits
 *   calls.c    io_uring's system calls
 *   latch.c    what programs get for operations that the filesystem lacks
 *   client.c   raw requests; file.c, name.c, xattr.c, walk.c, dir.c: what programs do, in requests
 *
 * Only vkernel.c, calls.c and latch.c take the lock. A channel is any endpoint that has a list of requests in hand;
 * nothing in the rules knows by which means its bytes travel.
 *
 * The sizes of answers are written down here a second time, not taken from the engine's table of opcodes: the
 * virtual kernel is what the engine is checked against.
 */
#ifndef MF_VKERNEL_H
#define MF_VKERNEL_H




#define MF__VK_FLAGS 0x5fd73fffffbull /* what Linux 6.18 offers */
#define MF__VK_MINOR 45u
#define MF__VK_PAGE 4096u
#define MF__VK_MAX_PAGES 256u
#define MF__VK_UMASK 022u /* of the programs that the client plays */
#define MF__VK_LOCK_OWNER 0x6d616e6966757365ull
#define MF__VK_NOTIFY_CODES 10u
#define MF__VK_TIMEOUT_MS 10000u

struct mf__vk_link {
    struct mf__vk_link *next;
    struct mf__vk_link *prev;
};

static inline void mf__vk_list_init(struct mf__vk_link *l)
{
    l->next = l->prev = l;
}

static inline bool mf__vk_list_empty(const struct mf__vk_link *l)
{
    return l->next == l;
}

/* Put `l` before `at`: at the tail, where `at` is the head of a list. */
static inline void mf__vk_list_add(struct mf__vk_link *l, struct mf__vk_link *at)
{
    l->prev = at->prev;
    l->next = at;
    at->prev->next = l;
    at->prev = l;
}

/* Harmless for what is in no list. */
static inline void mf__vk_list_del(struct mf__vk_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    mf__vk_list_init(l);
}

#define MF__VK_OF(link, type, member) MF__CONTAINER_OF(link, type, member)

static inline struct fuse_in_header *mf__vk_header(const uint8_t *msg)
{
    return (struct fuse_in_header *)(uintptr_t)msg;
}

enum mf__vk_where {
    MF__VK_NOWHERE, /* answered, or not queued yet */
    MF__VK_PENDING, /* in the queue that all channels share, or in that of a CPU */
    MF__VK_HELD     /* read by `holder`, or in the hands of who has its ring entry, and not answered */
};

/* A request. It lives until it is nowhere and no client owns it. */
struct mf__vk_req {
    struct mf__vk_link at;    /* pending, or a channel's held */
    struct mf__vk_link intr;  /* interrupts: an INTERRUPT waits to be read */
    struct mf__vk_link known; /* every request that is not freed */
    pthread_cond_t done;
    struct mf__vk_chan *holder;
    struct mf__vk_entry *entry;
    uint64_t id; /* even; what is on the wire may have the bit of a request sent again */
    uint32_t opcode;
    uint32_t out_least; /* bytes of a success answer */
    uint32_t out_most;
    enum mf__vk_where where;
    bool owned;     /* a client will collect the answer */
    bool collected; /* a client waits for it now */
    bool answered;
    bool silent;      /* gets no answer */
    bool interrupted; /* the caller got a signal */
    bool tidy;        /* where nobody collects it: give back what a success answer brought */
    int error;        /* 0 or a negative errno */
    uint8_t *out;
    uint32_t out_len;
    uint32_t len;
    _Alignas(8) uint8_t msg[]; /* header and everything after it */
};

struct mf__vk_chan {
    struct mf__vk_link all;
    struct mf__vk_link held;
    struct mf_vkernel *vk;
    uint32_t index;
    bool open;
    uint64_t reads;
    uint64_t kicks; /* wake-ups that no receive has consumed */
};

/* ---- requests over io_uring ---------------------------------------------------------------------- */

/* A thread that gave commands: with its end the entries that it armed are lost. */
struct mf__vk_task {
    _Atomic uint32_t refs;
    _Atomic bool dead;
};

struct mf__vk_uring;

/* An entry that was registered. It is idle, or holds a request that is in the filesystem's hands. */
struct mf__vk_entry {
    struct mf__vk_link at; /* idle or busy of its queue */
    struct mf__vk_queue *queue;
    struct mf__vk_uring *ring; /* where its last command came from: it completes there */
    struct mf__vk_task *task;
    struct mf__vk_req *req;
    uint64_t user_data;
    struct fuse_uring_req_header *head;
    uint8_t *payload; /* NULL: a piece of the queue's pool */
    uint8_t *piece;   /* where the payload in hand lies */
};

struct mf__vk_queue {
    struct mf__vk_link idle; /* last in first out */
    struct mf__vk_link busy;
    struct mf__vk_link pending;
    uint64_t delivered;
    uint32_t most_busy; /* at once, ever */
    uint8_t *pool;      /* 7.46 */
    uint32_t pieces;
    uint32_t next_piece;
    uint64_t taken[4]; /* bits of the pieces in use */
};

/* One io_uring instance. */
struct mf__vk_uring {
    struct mf__vk_link all;
    struct mf_vkernel *vk;
    struct mf__vk_chan *file; /* fixed file 0 */
    pthread_cond_t posted;
    int fd;
    bool open;
    uint32_t users; /* threads that wait in it */
    uint32_t flags, sq_entries, cq_entries;
    struct mf__region maps, sqes;
    uint8_t *mapped, *mapped_sqes; /* NULL: not, or no longer */
    uint32_t tail;                 /* of the completions: ours to say */
    struct mf__vk_link overflow;
};

struct mf__vk_forget {
    struct mf__vk_link at;
    struct fuse_forget_one one;
};

struct mf_vkernel {
    pthread_mutex_t lock;
    pthread_cond_t ready; /* clients that wait for the answer to INIT */
    uint32_t refs;        /* the creator and every open channel */
    uint32_t timeout_ms;
    struct mf_vkernel_opts opts;

    struct mf__vk_link chans;
    struct mf__vk_link readers; /* threads blocked in receive, first come first */
    uint32_t n_chans;
    uint32_t open_chans;
    uint32_t clones; /* attempts */

    struct mf__vk_link pending;
    struct mf__vk_link interrupts;
    struct mf__vk_link forgets;
    struct mf__vk_link known;
    uint64_t last_id;
    uint32_t forget_turn; /* reads that forgets have before requests are next */
    uint32_t request_turn;

    bool connected;
    bool unmounted;
    bool aborted;      /* readers are told ECONNABORTED */
    bool initialized;  /* INIT was answered, well or badly */
    bool refused;      /* badly */
    bool no_interrupt; /* the filesystem has no use for INTERRUPT */
    uint64_t latched;  /* bit 1 << opcode: answered ENOSYS for good */

    uint32_t minor; /* in force */
    uint64_t flags;
    uint32_t max_write;
    uint32_t max_pages;

    struct mf__vk_queue *queues; /* of the possible CPUs */
    struct mf__vk_link urings;
    const struct mf__uring_sys *uring_sys; /* NULL: not offered */
    int next_fd;
    int32_t cpu; /* where clients run; -1 = on each in turn */
    uint32_t next_cpu;
    uint32_t max_payload;
    bool uring_wanted; /* agreed upon and not refused since: requests wait for the queues */
    bool uring_ready;  /* requests go to the queues */
    struct mf__vk_fault {
        uint32_t op;    /* FUSE_IO_URING_CMD_*, or MF__URING_OP_MSG_RING */
        uint32_t skip;  /* that many go well first */
        uint32_t count; /* then so many fail */
        int error;
    } fault; /* tests */

    uint64_t bad_replies;
    uint64_t notified[MF__VK_NOTIFY_CODES]; /* accepted, by code */
    uint8_t *notify;                        /* the last one */
    size_t notify_len;
};

/* ---- queue.c ------------------------------------------------------------------------------------ */

/* Bytes that a success answer may have. */
void mf__vk_reply_size(uint32_t opcode, const void *body, size_t len, uint32_t *least, uint32_t *most);

/* A request that owns nothing yet and is nowhere. `ext_len` bytes at the end of the parts are extensions. */
struct mf__vk_req *mf__vk_req_new(const struct mf_vkernel_opts *as, uint32_t opcode, uint64_t node,
                                  const struct iovec *parts, uint32_t n, uint32_t ext_len);
void mf__vk_req_free(struct mf__vk_req *req); /* not in any list */

void mf__vk_enqueue(struct mf_vkernel *vk, struct mf__vk_req *req);
/* A request that nobody waits for. */
int mf__vk_post(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *body, size_t len);
int mf__vk_queue_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup);
/* 0, -ENOENT: neither queued nor in hand. */
int mf__vk_queue_interrupt(struct mf_vkernel *vk, uint64_t id);

/* What read(2) does, but -EAGAIN where it would wait. */
int mf__vk_take(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len);
bool mf__vk_anything(const struct mf_vkernel *vk);
uint64_t mf__vk_count(const struct mf_vkernel *vk);

/* The request is over: tell its owner, or free it. */
void mf__vk_finish(struct mf_vkernel *vk, struct mf__vk_req *req, int error);
/* Its owner has no more interest. */
void mf__vk_disown(struct mf__vk_req *req);
struct mf__vk_req *mf__vk_known(struct mf_vkernel *vk, uint64_t id);
/* Everything queued or in hand fails; readers see the end. */
void mf__vk_disconnect(struct mf_vkernel *vk);

/* ---- reply.c ------------------------------------------------------------------------------------ */

/* What write(2) does. 0 or -errno. */
int mf__vk_write(struct mf__vk_chan *ch, const struct iovec *iov, int n);

/* An answer to a request, wherever it is held. 0; -EINVAL: of a wrong size, and the caller gets EIO; -ENOMEM. */
int mf__vk_answer(struct mf_vkernel *vk, struct mf__vk_req *req, const struct iovec *iov, int n, size_t body,
                  int error);

size_t mf__vk_iov_len(const struct iovec *iov, int n);
/* Bytes [skip, skip + len) of the pieces; returns how many there were. */
size_t mf__vk_gather(void *dst, size_t skip, size_t len, const struct iovec *iov, int n);

/* ---- notify.c ----------------------------------------------------------------------------------- */

int mf__vk_notify(struct mf_vkernel *vk, int32_t code, const struct iovec *iov, int n);

/* ---- uring.c ------------------------------------------------------------------------------------ */

int mf__vk_queues_new(struct mf_vkernel *vk);
void mf__vk_queues_free(struct mf_vkernel *vk);
/* The answer to INIT was adopted. */
void mf__vk_uring_agreed(struct mf_vkernel *vk);
/* Does this request travel over io_uring now? */
bool mf__vk_takes_ring(const struct mf_vkernel *vk, const struct mf__vk_req *req);
void mf__vk_queue_on_cpu(struct mf_vkernel *vk, struct mf__vk_req *req);
/* Requests queued or in hand. */
uint64_t mf__vk_ring_count(const struct mf_vkernel *vk);
/* The connection is gone: requests fail, entries come back. */
void mf__vk_uring_disconnect(struct mf_vkernel *vk);
/* Carry out a submission. `task` is whose. */
void mf__vk_command(struct mf__vk_uring *u, const struct mf__sqe *sqe, struct mf__vk_task *task);
/* The error that such a command shall bring now, or 0. */
int mf__vk_planned_fault(struct mf_vkernel *vk, uint32_t op);
/* A ring is gone, and its idle entries with it. */
void mf__vk_drop_entries(struct mf__vk_uring *u);

/* ---- calls.c ------------------------------------------------------------------------------------ */

extern const struct mf__uring_sys mf__vk_calls;

/* Called by the rules. */
void mf__vk_post_cqe(struct mf__vk_uring *u, uint64_t user_data, int32_t res);
void mf__vk_task_put(struct mf__vk_task *task);

/* For tests. The system calls of the io_uring that it offers, NULL: none. Others may be put in their place. */
const struct mf__uring_sys *mf__vk_uring(struct mf_vkernel *vk);
void mf__vk_set_uring(struct mf_vkernel *vk, const struct mf__uring_sys *sys);
/* Where clients run from now on; -1 = on each CPU in turn. */
void mf__vk_set_cpu(struct mf_vkernel *vk, int32_t cpu);
/* Let commands fail. */
void mf__vk_set_fault(struct mf_vkernel *vk, const struct mf__vk_fault *fault);
/* Of a queue: requests delivered, entries idle now, most entries busy at once. */
struct mf__vk_queue_info {
    uint64_t delivered;
    uint32_t idle, busy, pending, most_busy;
};
struct mf__vk_queue_info mf__vk_queue_look(struct mf_vkernel *vk, uint32_t queue);
/* Instances of io_uring that are not released; whether requests travel over them. */
uint32_t mf__vk_urings(struct mf_vkernel *vk);
bool mf__vk_uring_is_ready(struct mf_vkernel *vk);

/* ---- vkernel.c ---------------------------------------------------------------------------------- */

/* Called by the rules. A descriptor that io_uring holds keeps the connection alive. */
void mf__vk_chan_hold(struct mf__vk_chan *ch);
void mf__vk_chan_drop(struct mf__vk_chan *ch); /* not the kernel itself: whoever drops has it alive */
void mf__vk_wake_reader(struct mf_vkernel *vk);
void mf__vk_wake_readers(struct mf_vkernel *vk);
void mf__vk_wake_clients(struct mf_vkernel *vk);

/* For channels. The first one is made once: -EBUSY. */
int mf__vk_chan_first(struct mf_vkernel *vk, struct mf__vk_chan **out);
int mf__vk_chan_clone(struct mf__vk_chan *ch, struct mf__vk_chan **out);
void mf__vk_chan_close(struct mf__vk_chan *ch);
int mf__vk_chan_receive(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len);
int mf__vk_chan_send(struct mf__vk_chan *ch, const struct iovec *iov, int n);
void mf__vk_chan_kick(struct mf__vk_chan *ch);

/* What clients ask. Parts are sent one after the other. */
struct mf__vk_ask {
    uint32_t opcode;
    uint64_t node;
    struct iovec in[5];
    uint32_t n_in;
    uint32_t ext_len; /* bytes at the end of the parts that are extensions */
    void *out;
    uint64_t out_room;
    uint64_t out_len;
    bool latched; /* the answer is what the kernel makes up for want of the operation */
};

static inline void mf__vk_add(struct mf__vk_ask *ask, const void *data, size_t len)
{
    ask->in[ask->n_in].iov_base = (void *)(uintptr_t)data;
    ask->in[ask->n_in++].iov_len = len;
}

/* Wait until INIT was answered, and queue. */
int mf__vk_submit(struct mf_vkernel *vk, const struct mf__vk_ask *ask, uint64_t *id);
/* Wait for the answer and copy it. After -ETIMEDOUT it can be waited for again; anything else is final. */
int mf__vk_collect(struct mf_vkernel *vk, uint64_t id, void *out, uint64_t room, uint64_t *len);
/* Submit, then collect or give up. `tidy`: what an answer brings that comes too late is given back. */
int mf__vk_ask_raw(struct mf_vkernel *vk, struct mf__vk_ask *ask, bool tidy);
/* Queue forgets, all at once. 0; -ENOTCONN, -ENOMEM. */
int mf__vk_forget(struct mf_vkernel *vk, const struct mf_forget *what, size_t n);
/* Wait until INIT was answered: the terms below are those of the answer. 0 or what a request would get. */
int mf__vk_ready(struct mf_vkernel *vk);
/* Flags in force; 0 before INIT was answered. */
uint64_t mf__vk_flags(struct mf_vkernel *vk);
/* Most bytes of a READ, a WRITE; of a name. */
uint32_t mf__vk_max_read(struct mf_vkernel *vk);
uint32_t mf__vk_max_write(struct mf_vkernel *vk);
uint32_t mf__vk_max_name(struct mf_vkernel *vk);

/* For tests of notifications: how many of a code were accepted; the last one, cut at `room`. */
uint64_t mf__vkernel_notified(struct mf_vkernel *vk, uint32_t code);
size_t mf__vkernel_last_notify(struct mf_vkernel *vk, void *buf, size_t room);

/* ---- latch.c ------------------------------------------------------------------------------------ */

/*
 * Ask as the kernel does for a program: an operation that was answered ENOSYS before may not be sent again, and
 * has the result that the kernel makes up. -ENOSYS with `latched`: the caller has another way to do it.
 */
int mf__vk_ask(struct mf_vkernel *vk, struct mf__vk_ask *ask);
bool mf__vk_is_latched(struct mf_vkernel *vk, uint32_t opcode);

/* ---- what programs do --------------------------------------------------------------------------- */

/* A node as a program's call knows it. */
struct mf__vk_node {
    uint64_t id;
    uint64_t attr_ns; /* how long attr may be believed; 0 = it must be asked for */
    struct mf_attr attr;
};

/* A walk over names: the directories from the root to where it is, and what it must forget at its end. */
struct mf__vk_walk {
    struct mf_vkernel *vk;
    struct mf__vk_node *chain;
    size_t depth;
    size_t chain_room;
    struct mf_forget *got;
    size_t n_got;
    size_t got_room;
    uint32_t links; /* symbolic links followed */
};

/* walk.c */
int mf__vk_walk_begin(struct mf__vk_walk *w, struct mf_vkernel *vk);
/* Forgets all that was looked up and returns rc. */
int mf__vk_walk_end(struct mf__vk_walk *w, int rc);
/* From where the walk is, or from the root, to the node of a path; a link at its end is followed where `follow`. */
int mf__vk_walk_to(struct mf__vk_walk *w, const char *path, bool follow, struct mf__vk_node *out);
/*
 * To the directory that holds a path's last name; *name is the caller's to free. `none` is the error where the
 * path has no last name to act on: the root, ".", "..".
 */
int mf__vk_walk_parent(struct mf__vk_walk *w, const char *path, int none, uint64_t *parent, char **name);
/* One LOOKUP, remembered for the end. -ENOENT also for a negative answer. */
int mf__vk_walk_lookup(struct mf__vk_walk *w, uint64_t parent, const char *name, struct mf__vk_node *out);
/* The kernel was given a reference to the node. */
int mf__vk_walk_remember(struct mf__vk_walk *w, uint64_t node);
/* The target of a link, to be freed; -ELOOP after too many of them. */
int mf__vk_walk_target(struct mf__vk_walk *w, uint64_t node, char **target);

/* node.c: single requests, their answers checked as the kernel checks them */
bool mf__vk_attr_ok(const struct fuse_attr *attr);
uint64_t mf__vk_ns(uint64_t seconds, uint32_t ns);
/* An output structure of the caller's that may be shorter than ours. */
int mf__vk_copy_out(void *dst, const void *src, uint32_t size);
int mf__vk_check_name(struct mf_vkernel *vk, const char *name);
int mf__vk_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct fuse_entry_out *out);
int mf__vk_getattr(struct mf_vkernel *vk, uint64_t node, const uint64_t *fh, struct fuse_attr_out *out);
/* Make what is known of a node's attributes true now. */
int mf__vk_refresh(struct mf_vkernel *vk, struct mf__vk_node *node, const uint64_t *fh);
int mf__vk_readlink(struct mf_vkernel *vk, uint64_t node, char *target, uint64_t room, uint64_t *len);
void mf__vk_node_of(struct mf__vk_node *node, const struct fuse_entry_out *e);
/* Mode bits that a new node is asked for with. */
uint32_t mf__vk_masked(struct mf_vkernel *vk, uint32_t mode);
/* The extension area of a request that makes a node: the last part. */
void mf__vk_add_ext(struct mf_vkernel *vk, struct mf__vk_ask *ask);
/* MKNOD, MKDIR, SYMLINK, LINK: the answer is a node with the type of `mode`. */
int mf__vk_make(struct mf_vkernel *vk, struct mf__vk_ask *ask, uint32_t mode, struct fuse_entry_out *out);
int mf__vk_mknod(struct mf_vkernel *vk, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev,
                 struct fuse_entry_out *out);
/* The caller's change must take away suid and sgid bits, and the filesystem wants to be told so. */
bool mf__vk_kills_priv(struct mf_vkernel *vk);
int mf__vk_setattr(struct mf_vkernel *vk, uint64_t node, const struct fuse_setattr_in *in);
int mf__vk_setsize(struct mf_vkernel *vk, uint64_t node, uint64_t length, bool opening);

/* file.c */
#if defined(__aarch64__) || defined(__arm__)
#define MF__VK_LARGEFILE 0400000u
#else
#define MF__VK_LARGEFILE 0100000u /* what the kernel sets for every 64-bit program, whatever libc calls it */
#endif

struct mf__vk_file {
    uint64_t node;
    uint64_t fh;
    uint32_t flags;      /* of open(2) */
    uint32_t open_flags; /* FOPEN_* */
    bool directory;
    bool unopened; /* the filesystem has no OPEN: no RELEASE either */
};
int mf__vk_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, bool directory, struct mf__vk_file *out);
/* close(2): FLUSH, whose error is the result, and RELEASE. */
int mf__vk_close(struct mf_vkernel *vk, const struct mf__vk_file *f);
/* Waits for the answer, so that tests see what happened; the error is nobody's, as in the kernel. 0 or -ETIMEDOUT. */
int mf__vk_release(struct mf_vkernel *vk, const struct mf__vk_file *f);
/* One READ. */
int64_t mf__vk_read(struct mf_vkernel *vk, const struct mf__vk_file *f, void *buf, uint32_t size, uint64_t offset);
int64_t mf__vk_pwrite(struct mf_vkernel *vk, const struct mf__vk_file *f, const void *buf, uint64_t length,
                      uint64_t offset);

#endif

#define HEADER_SIZE sizeof(struct fuse_out_header)

/* More pieces than any answer has. */
#define PIECES 8

static int memory_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    size_t len = 0;
    int rc, cancel;

    /* As on the device: afterwards a length that is not 0 says that a whole request is there. */
    if (spare->recv_size >= sizeof(uint32_t))
        memset(spare->recv, 0, sizeof(uint32_t));
    /* Who is cancelled while he waits with the virtual kernel's lock would take it along. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    rc = mf__vk_chan_receive(ch->impl, spare->recv, spare->recv_size, &len);
    pthread_setcancelstate(cancel, NULL);
    if (rc < 0)
        return rc;
    if (mf__msg_split(&spare->msg, spare->recv, len) < 0)
        spare->msg.hdr.opcode = 0;
    spare->ch = ch;
    *got = spare;
    return 0;
}

static int memory_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                       int n)
{
    uint8_t *head = io->body - HEADER_SIZE;
    struct iovec all[PIECES + 1];

    if (n < 0 || n > PIECES)
        return -EINVAL;
    mf__put_header(head, mf__vk_iov_len(iov, n), error, unique);
    all[0] = (struct iovec){ .iov_base = head, .iov_len = HEADER_SIZE };
    if (n > 0)
        memcpy(all + 1, iov, sizeof(*iov) * (size_t)n);
    return mf__vk_chan_send(ch->impl, all, n + 1);
}

static int memory_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    struct iovec all = { .iov_base = (void *)(uintptr_t)msg, .iov_len = len };

    return mf__vk_chan_send(ch->impl, &all, 1);
}

static void memory_wake(struct mf__channel *ch)
{
    mf__vk_chan_kick(ch->impl);
}

static void memory_close(struct mf__channel *ch)
{
    mf__vk_chan_close(ch->impl);
    free(ch);
}

static int memory_clone(struct mf__channel *ch, struct mf__channel **out);

static const struct mf__transport memory_transport = {
    .name = "memory",
    .kind = MF_TRANSPORT_MEMORY,
    .receive = memory_receive,
    .send = memory_send,
    .write_raw = memory_write_raw,
    .clone = memory_clone,
    .wake = memory_wake,
    .close = memory_close,
};

static struct mf__channel *new_channel(void)
{
    struct mf__channel *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return NULL;
    ch->ops = &memory_transport;
    ch->fd = -1;
    atomic_init(&ch->refs, 1);
    return ch;
}

/* The first channel of `vk`, or a clone of `from`. */
static int make_channel(struct mf_vkernel *vk, struct mf__vk_chan *from, struct mf__channel **out)
{
    struct mf__channel *ch = new_channel();
    struct mf__vk_chan *impl = NULL;
    int rc;

    if (!ch)
        return -ENOMEM;
    rc = from ? mf__vk_chan_clone(from, &impl) : mf__vk_chan_first(vk, &impl);
    if (rc < 0) {
        free(ch);
        return rc;
    }
    ch->impl = impl;
    ch->index = impl->index;
    *out = ch;
    return 0;
}

static int memory_clone(struct mf__channel *ch, struct mf__channel **out)
{
    return make_channel(NULL, ch->impl, out);
}

int mf__memory_channel(struct mf_vkernel *vk, struct mf__channel **out)
{
    return make_channel(vk, NULL, out);
}

const struct mf__uring_sys *mf__memory_uring(struct mf__channel *ch, void **kernel)
{
    struct mf__vk_chan *impl = ch->impl;

    if (ch->ops != &memory_transport)
        return NULL;
    *kernel = impl->vk;
    return mf__vk_uring(impl->vk);
}
#undef HEADER_SIZE
#undef PIECES

/* ==== core/transport/ring.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * ring.c - requests over io_uring (7.42).
 *
 * One ring serves one queue, or several, and any number of threads serve one ring. The ring is a plain one (no
 * SINGLE_ISSUER, no DEFER_TASKRUN): the kernel copies a request into an entry's buffers in the task that
 * submitted the entry's last command, also while that task is blocked in a handler, and whichever thread waits
 * on the ring then takes the completion. So a handler that waits holds up nobody: another thread goes on, and
 * each answer that it gives moves an entry over to it. (What a blocked system call sees of it is a restart, or
 * EINTR where signal(7) says that it is never restarted, as for epoll_wait(2).)
 *
 * Several threads submit, so the submission side has a lock. Under it commands are submitted at once or taken
 * back: between two holders the submission queue is empty. Who finds it taken leaves his answer to who has it.
 * Completions are claimed one by one with a compare-and-swap on the ring's head: a thread never holds one that it is
 * not about to handle.
 *
 * One thread at a time waits for completions, since the kernel would wake all who do for each. The others follow: one
 * of them is called when the first has taken a request whose handler may wait, or leaves. While handlers return at
 * once nobody is called, and one thread does it all; should a handler wait then, a follower finds out. Where handlers
 * wait often each thread has a ring of its own beside this one: ring_own.c.
 *
 * Answers from threads that are none of the session's are committed by a reader: a foreign thread may exit, and
 * an entry that it had armed would fail its next request. So is an answer whose commit the system had no memory
 * for: it waits in the same list.
 *
 * The mount is ready for rings when the last queue gets its first entry, and at once all those come who have waited
 * for it. What finds that queue's only entry taken waits for a commit there: an entry that is registered later does not
 * look at it. Were the first one's handler to wait, too, nothing would go on. So one queue is the last, that of the
 * first ring: it is registered when all other entries are, and all of it in one call.
 */

/* core/transport/ring_private.h */
/* SPDX-License-Identifier: MIT */
/* ring_private.h - what a ring is made of, for the files ring*.c alone. */
#ifndef MF_RING_PRIVATE_H
#define MF_RING_PRIVATE_H



#define WAKE_DATA UINT64_MAX       /* user_data of what wakes */
#define POOL_DATA (UINT64_MAX - 1) /* of the command that tells a pool */
#define BODY_SLACK 65536u          /* for an answer that is built beside the request's payload */
#define SUBMISSIONS 32u            /* answers in one call: as many as clients of a CPU may wait for */
#define NAP_NS 1000000             /* before what failed for want of memory is tried again */
#define TRIES 100u
#define IDLE_WATCH_NS 1000000

#ifdef __SANITIZE_THREAD__
/* What one thread submits and another claims went through the kernel, whose part in it is not seen. */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define HAND_OVER(u) __tsan_release(u)
#define TAKE_OVER(u) __tsan_acquire(u)
#else
#define HAND_OVER(u) ((void)(u))
#define TAKE_OVER(u) ((void)(u))
#endif

struct entry {
    struct fuse_uring_req_header *head;
    uint8_t *payload;   /* its own buffer */
    uint8_t *at;        /* where the payload of the request in hand lies, and its answer's is expected */
    uint64_t commit_id; /* of the request in hand or the last one; 0: never had any */
    uint32_t queue;
    uint32_t next_commit;      /* list of answers that wait to be committed: index + 1 */
    _Atomic uint64_t requests; /* that it brought; whoever has it in hand counts */
    struct iovec iov[2];       /* the kernel remembers what it points to, not the array itself */
};

/* An io_uring with its maps, and the answers that are to go out on it. */
struct uring {
    const struct mf__uring_sys *sys;
    void *kernel; /* what that wants to have back */
    int fd;
    uint8_t *maps;
    size_t maps_size;
    struct mf__sqe *sqes;
    size_t sqes_size;
    _Atomic uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail;
    uint32_t *sq_array;
    uint32_t sq_mask, cq_mask;
    struct mf__cqe *cqes;
    pthread_mutex_t submit;
    uint32_t queued;           /* commands that are about to be submitted; under the lock, like these: */
    uint32_t taken;            /* of the last submission */
    uint32_t submissions;      /* at once */
    _Atomic uint32_t held;     /* answers among those that wait which a reader kept back for a batch */
    _Atomic uint32_t wake_ups; /* that whoever has the lock is to send */
    _Atomic uint32_t waiting;  /* first of the answers that wait for a reader's commit: index + 1 */
    _Atomic bool left;         /* some of them are for whoever has the lock, */
    _Atomic bool waking;       /* who is about to wake somebody, no more */
    _Atomic bool shut;
};

/* See ring_own.c. */
struct mf__own_ring {
    struct uring u;
    struct ring *home;
    struct mf__own_ring *next; /* of the same home */
    _Atomic bool taken;        /* by a reader */
    _Atomic bool awaited;      /* he waits there */
    _Atomic uint32_t entries;  /* armed here, or about to be by an answer that waits: a request may come */
    _Atomic uint64_t requests; /* that came; the reader counts */
};

struct ring {
    struct mf__channel ch;
    struct {
        _Atomic uint64_t behind, waits, batches, calls, blocked, nudges;
    } counts;
    struct mf__ring_opts opts;
    struct uring u;
    struct uring waker;      /* see mf__ring_send_message(); open once it has maps */
    struct entry *entries;   /* first entries of all queues, second ones of all queues, ... */
    _Atomic uint32_t *alive; /* per queue: entries that were not refused */
    uint32_t queue_count;
    uint32_t count;
    struct mf__region headers, payloads, pools;
    size_t payload_room;
    uint32_t failures;        /* to register, for want of memory; with the lock for submissions held, */
    uint32_t armed;           /* like these: entries whose first command is out; */
    bool attached;            /* the device is our fixed file */
    _Atomic uint32_t missing; /* rings that must be registered before our last queue */
    _Atomic bool nudged;      /* a wake-up for the answers of foreign threads is under way */
    _Atomic int state;        /* 0 not all registered, 1 registered, negative: refused */
    _Atomic uint32_t gone;    /* entries that the kernel gave back for good */
    struct mf__own_ring *_Atomic owns;
    _Atomic uint32_t orphans;                  /* own rings with entries that no reader has taken */
    _Alignas(MF__CACHE_LINE) _Atomic bool led; /* a thread waits for completions, or is about to */
    _Atomic uint32_t followers;                /* threads that wait to be that one */
    pthread_mutex_t follow;
    pthread_cond_t called;
    uint32_t calls;              /* under that lock: followers that may go */
    bool watched;                /* likewise: one of them looks from time to time, */
    _Atomic uint32_t vain_looks; /* since a look found a request that nobody took */
    uint32_t head_then;          /* at the last look from elsewhere */
};

static inline struct ring *ring_of(struct mf__channel *ch)
{
    return MF__CONTAINER_OF(ch, struct ring, ch);
}

static inline bool passing(int error)
{
    return error == -EAGAIN || error == -EBUSY || error == -ENOMEM;
}

static inline void count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void nap(void)
{
    const struct timespec time = { .tv_nsec = NAP_NS };

    nanosleep(&time, NULL);
}

static inline bool anything_completed(const struct uring *u)
{
    return atomic_load_explicit(u->cq_head, memory_order_relaxed) !=
           atomic_load_explicit(u->cq_tail, memory_order_acquire);
}

/* Nobody is called before handlers that return at once: else somebody looks, a follower or who looks anyway. */
static inline bool somebody_looks(const struct ring *r)
{
    return atomic_load_explicit(&r->ch.calling, memory_order_relaxed) == MF__CALL_SLOW;
}

/* ---- ring.c ---------------------------------------------------------------------------------------- */

extern const struct mf__transport mf__ring_transport;

/* ---- ring_submit.c --------------------------------------------------------------------------------- */

/*
 * Register what is left, with the lock held. It stops where something completed: that may be the refusal, and the
 * receiver, who looks at it, comes back here; and where other rings come first.
 */
int mf__ring_register(struct ring *r);
/* The kernel wants an entry's first command once more. */
int mf__ring_register_again(struct ring *r, uint32_t index);
/*
 * Send the answer that lies in an entry. 0; MF__SENT_LATER: another reader does that, who is just sending some; an error: it
 * waits for the next receive, unless the ring is shut.
 */
int mf__ring_commit(struct ring *r, struct uring *u, uint32_t index);
/* Let an answer wait for mf__ring_commit_waiting(), which is for a task that lives as long as the ring. */
void mf__ring_let_wait(struct ring *r, struct uring *u, uint32_t index);
int mf__ring_commit_waiting(struct ring *r, struct uring *u);
/* Wake whoever waits for completions there. */
void mf__uring_wake(struct uring *u);
/*
 * The same for who waits on the shared ring, by a message from a ring beside it. Without one whoever wakes is still in that
 * system call, with the lock, when who is woken needs it for the answers, and would have to be woken once more. false: that
 * ring cannot be had, or somebody else is using it.
 */
bool mf__ring_send_message(struct ring *r);
void mf__uring_unlock(struct uring *u); /* instead of pthread_mutex_unlock() on `submit` */

/* ---- ring_follow.c --------------------------------------------------------------------------------- */

void mf__ring_wake(struct mf__channel *ch);
void mf__ring_nudge(struct ring *r); /* the same for answers that wait, from a thread that is none of the session's */
/* Wait to be called, while somebody waits for completions already; served: or takes them without having waited. */
void mf__ring_follow(struct ring *r, bool served);

/* ---- ring_make.c ----------------------------------------------------------------------------------- */

void mf__ring_close(struct mf__channel *ch);
void mf__uring_init(struct uring *u, const struct mf__uring_sys *sys, void *kernel);
/* A ring for so many submissions at once, and completions. */
int mf__uring_open(struct uring *u, uint32_t submissions, uint32_t completions);
void mf__uring_release(struct uring *u);              /* maps and descriptor */
void mf__uring_shut(struct ring *r, struct uring *u); /* the same where there may be others */
void mf__uring_forget(struct uring *u);               /* in a child of fork() */

/* ---- ring_own.c ------------------------------------------------------------------------------------ */

void mf__owns_shut(struct ring *r);
void mf__owns_forget(struct ring *r);
void mf__owns_free(struct ring *r);
void mf__owns_close_inherited(struct ring *r);
static inline bool holds(const struct mf__own_ring *own)
{
    return atomic_load_explicit(&own->entries, memory_order_relaxed) > 0;
}

#endif

static inline void transport_ring_leave(struct ring *r)
{
    if (r->opts.leave)
        r->opts.leave(r->opts.user);
}

/* ---- completions ----------------------------------------------------------------------------------- */

static bool claim_cqe(struct ring *r, struct uring *u, struct mf__cqe *out)
{
    uint32_t head = atomic_load_explicit(u->cq_head, memory_order_acquire);

    for (;;) {
        struct mf__cqe *cqe = &u->cqes[head & u->cq_mask];

        if (head == atomic_load_explicit(u->cq_tail, memory_order_acquire))
            return false;
        /* Whoever comes second reads what the kernel may be writing anew: then the exchange fails. */
        out->user_data = __atomic_load_n(&cqe->user_data, __ATOMIC_RELAXED);
        out->res = __atomic_load_n(&cqe->res, __ATOMIC_RELAXED);
        if (atomic_compare_exchange_weak_explicit(u->cq_head, &head, head + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            break;
    }
    TAKE_OVER(u);
    if (head + 1 != atomic_load_explicit(u->cq_tail, memory_order_relaxed))
        count_one(&r->counts.behind);
    return true;
}

/*
 * Where the payload of a request lies: in the entry's own buffer, or (7.46) in its queue's pool, at the offset that
 * came with it. NULL: it lies nowhere.
 */
static uint8_t *payload_of(const struct ring *r, const struct entry *e)
{
    size_t size, offset;
    uint32_t n;

    if (e->head->ring_ent_in_out.payload_sz > r->opts.max_payload)
        return NULL;
    if (!r->opts.pool)
        return e->payload;
    size = (size_t)r->opts.depth * r->opts.max_payload;
    offset = e->head->ring_ent_in_out.padding;
    n = (uint32_t)(e - r->entries) / r->opts.depth;
    return offset > size - r->opts.max_payload ? NULL : r->pools.base + n * size + offset;
}

static void transport_ring_deliver(struct ring *r, uint32_t index, struct mf__io *io)
{
    struct entry *e = &r->entries[index];
    struct mf__msg *msg = &io->msg;
    uint32_t used = e->head->ring_ent_in_out.payload_sz;
    size_t beside = 0;

    e->commit_id = e->head->ring_ent_in_out.commit_id;
    e->at = payload_of(r, e);
    mf__count(&e->requests, 1);
    io->entry = index;
    io->queue = e->queue;
    io->commit_id = e->commit_id;
    if (!e->at) { /* the header still says whom to answer */
        e->at = e->payload;
        used = 0;
        (void)mf__msg_from_ring(msg, e->head, e->at, 0);
        msg->hdr.opcode = 0;
    } else if (mf__msg_from_ring(msg, e->head, e->at, used) < 0) {
        msg->hdr.opcode = 0;
    } else if (msg->args == e->head->op_in) {
        /* The structure is no longer than the header's length allows: what follows in op_in is of older requests. */
        size_t rest = msg->hdr.len < sizeof(msg->hdr) + used ? 0 : msg->hdr.len - sizeof(msg->hdr) - used;

        if (msg->args_len > rest)
            msg->args_len = (uint32_t)rest;
    }
    /* An answer must not grow over names that a handler still reads; it moves to its place when it is sent. */
    if (e->at == e->payload && used)
        beside = (size_t)mf__round_up(used, MF__CACHE_LINE);
    io->body = e->payload + beside;
    io->body_size = r->payload_room - beside;
}

static bool is_end(int error)
{
    return error == -ENOTCONN || error == -ECONNABORTED || error == -ECANCELED;
}

/* The connection is gone, or at least this ring: what a receive says. */
static int end_of(struct ring *r, struct mf__io *spare, struct mf__io **got)
{
    struct mf__channel *device = r->opts.device;
    int rc = -ENODEV;

    if (r->u.sys->over(r->u.kernel, device))
        rc = device->ops->receive(device, spare, got); /* it knows whether it was aborted */
    return rc == -ECONNABORTED ? rc : -ENODEV;
}

static int entry_gone(struct ring *r, const struct mf__cqe *cqe, struct entry *e, struct mf__io *spare,
                      struct mf__io **got)
{
    uint32_t n = (uint32_t)(e - r->entries) / r->opts.depth;
    bool refused = !e->commit_id && !is_end(cqe->res);

    if (refused && atomic_fetch_sub(&r->alive[n], 1) == 1) {
        /* A queue without an entry: the mount never gets ready for rings. */
        mf__ring_refuse(&r->ch, cqe->res);
        if (r->opts.refused)
            r->opts.refused(r->opts.user, cqe->res);
        return -EINTR;
    }
    return atomic_fetch_add(&r->gone, 1) + 1 == r->count ? end_of(r, spare, got) : 0;
}

/* Where an answer is to be committed, which brings the entry there. */
static struct uring *into(struct ring *r, struct mf__own_ring *own)
{
    if (!own)
        return &r->u;
    atomic_fetch_add_explicit(&own->entries, 1, memory_order_relaxed);
    return &own->u;
}

/* The kernel wants to have the command once more: the answer to INIT is not processed yet, or it was interrupted. */
static int again(struct ring *r, struct mf__own_ring *own, uint32_t index)
{
    int rc;

    if (r->entries[index].commit_id) {
        rc = mf__ring_commit(r, into(r, own), index);
        return rc > 0 || passing(rc) ? 0 : rc;
    }
    do {
        nap();
        rc = mf__ring_register_again(r, index);
    } while (passing(rc));
    return rc;
}

/* Somebody shall look at something else. */
static int woken(struct ring *r, const struct mf__own_ring *own)
{
    if (own)
        return -EINTR;
    atomic_store(&r->nudged, false); /* before what waits is looked at */
    if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
        mf__ring_wake(&r->ch); /* for the next one, who must leave, too */
    return -EINTR;
}

/* No request: 0: look again; negative: what the receive returns. */
MF__COLD static int completed_else(struct ring *r, struct mf__own_ring *own, const struct mf__cqe *cqe,
                                   struct mf__io *spare, struct mf__io **got)
{
    uint32_t index = (uint32_t)cqe->user_data;

    transport_ring_leave(r);
    if (cqe->user_data == WAKE_DATA)
        return woken(r, own);
    if (cqe->user_data == POOL_DATA || index >= r->count)
        return 0; /* where the pool was refused, so are its entries */
    if (cqe->res == -EAGAIN || cqe->res == -EINTR)
        return again(r, own, index);
    return entry_gone(r, cqe, &r->entries[index], spare, got);
}

/* own: where it completed, NULL: on the shared ring. 1: a request was delivered; else as above. */
static int completed(struct ring *r, struct mf__own_ring *own, const struct mf__cqe *cqe, struct mf__io *spare,
                     struct mf__io **got)
{
    if (own && cqe->user_data < r->count)
        atomic_fetch_sub_explicit(&own->entries, 1, memory_order_relaxed);
    if (cqe->res != 0 || cqe->user_data >= r->count)
        return completed_else(r, own, cqe, spare, got);
    transport_ring_deliver(r, (uint32_t)cqe->user_data, spare);
    return 1;
}

MF__COLD static int go_on_registering(struct ring *r)
{
    bool later;
    int rc;

    transport_ring_leave(r);
    pthread_mutex_lock(&r->u.submit);
    rc = atomic_load(&r->state) == 0 ? mf__ring_register(r) : 0;
    later = passing(rc) && ++r->failures < TRIES;
    mf__uring_unlock(&r->u);
    if (later) {
        nap();
        return -EINTR;
    }
    if (rc < 0) {
        mf__ring_refuse(&r->ch, rc);
        if (r->opts.refused)
            r->opts.refused(r->opts.user, rc);
    }
    return rc;
}

/*
 * May an answer wait for the next one, so that one system call submits both? Only where many requests come and there is a
 * next one. Should its handler be one that may wait, it goes out before that.
 */
static bool may_hold(struct ring *r)
{
    return somebody_looks(r) && atomic_load_explicit(&r->u.held, memory_order_relaxed) < SUBMISSIONS - 1 &&
           anything_completed(&r->u);
}

bool mf__ring_has_more(struct mf__channel *ch)
{
    return may_hold(ring_of(ch));
}

/* For somebody who submits them: they are not left to one who is about to. */
static inline bool answers_wait(const struct uring *u)
{
    return atomic_load_explicit(&u->waiting, memory_order_relaxed) != 0 && !atomic_load(&u->left);
}

static inline int submit_waiting(struct ring *r, struct uring *u)
{
    int rc;

    transport_ring_leave(r);
    rc = mf__ring_commit_waiting(r, u);
    if (!passing(rc))
        return rc > 0 ? 0 : rc;
    nap();
    return -EINTR;
}

void mf__ring_flush(struct mf__channel *ch, struct mf__own_ring *own)
{
    struct ring *r = ring_of(ch);

    /* What fails waits for the next one who comes here. */
    if (answers_wait(&r->u))
        (void)mf__ring_commit_waiting(r, &r->u);
    if (own && answers_wait(&own->u))
        (void)mf__ring_commit_waiting(r, &own->u);
}

/* What is to be done before anything is waited for. */
static int prepare(struct ring *r)
{
    int rc = 0;

    if (answers_wait(&r->u) && !may_hold(r))
        rc = submit_waiting(r, &r->u);
    if (rc == 0 && atomic_load_explicit(&r->state, memory_order_relaxed) == 0)
        rc = go_on_registering(r);
    return rc;
}

/* Everything is registered, or must be by others first. */
static bool transport_ring_may_wait(struct ring *r)
{
    return atomic_load_explicit(&r->state, memory_order_relaxed) == 1 ||
           atomic_load_explicit(&r->missing, memory_order_relaxed);
}

static int wait_for_completion(struct uring *u)
{
    return u->sys->enter(u->kernel, u->fd, 0, 1, MF__URING_ENTER_GETEVENTS);
}

static int waited(const struct uring *u, int rc)
{
    if (rc >= 0)
        return 0;
    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return -ENODEV;
    if (!passing(rc))
        return rc;
    nap();
    return -EINTR;
}

/*
 * Another one was there first, and comes again: he would take what comes then, too, and this thread be woken each time.
 * Should he be long in his handler, that is found out like elsewhere.
 */
static bool was_woken_in_vain(const struct ring *r, uint32_t head)
{
    return somebody_looks(r) && !anything_completed(&r->u) &&
           atomic_load_explicit(r->u.cq_head, memory_order_relaxed) != head;
}

static int await(struct ring *r)
{
    uint32_t head;
    int rc;

    /* Kept back for a request that another one took. */
    if (answers_wait(&r->u))
        return submit_waiting(r, &r->u);
    transport_ring_leave(r);
    if (atomic_exchange(&r->led, true)) {
        mf__ring_follow(r, false);
        return 0;
    }
    mf__count(&r->counts.waits, 1);
    head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);
    rc = wait_for_completion(&r->u);
    atomic_store(&r->led, false);
    if (rc >= 0 && was_woken_in_vain(r, head))
        mf__ring_follow(r, true);
    return waited(&r->u, rc);
}

static int await_own(struct ring *r, struct mf__own_ring *own)
{
    int rc;

    transport_ring_leave(r);
    atomic_store(&own->awaited, true);
    rc = wait_for_completion(&own->u);
    atomic_store(&own->awaited, false);
    return waited(&own->u, rc);
}

/* The slot is free, yet what it was last filled with was never answered: a message that wants no answer. */
MF__COLD static void give_back_unanswered(struct mf__channel *ch, struct mf__io *spare)
{
    transport_ring_leave(ring_of(ch));
    if (spare->ch && spare->ch->ops == ch->ops) {
        spare->own_thread = spare->receives_next = spare->ch == ch;
        spare->ch->ops->send(spare->ch, spare, spare->msg.hdr.unique, 0, NULL, 0);
    }
    spare->commit_id = 0;
}

static bool another_must_wait(struct ring *r, const struct mf__io *got)
{
    if (!atomic_load(&r->followers) && !answers_wait(&r->u))
        return false; /* there is nobody to call, and nothing to submit */
    return !somebody_looks(r) || !r->opts.may_wait || r->opts.may_wait(r->opts.user, got->msg.hdr.opcode);
}

/* 0: nothing will come there; else as receive_shared(). */
static int receive_own(struct ring *r, struct mf__own_ring *own, struct mf__io *spare, struct mf__io **got)
{
    struct mf__cqe cqe;
    int rc = 0;

    while (rc == 0 && holds(own)) {
        if (atomic_load_explicit(&r->state, memory_order_relaxed) < 0)
            rc = -EINTR;
        else if (answers_wait(&own->u))
            rc = submit_waiting(r, &own->u);
        if (rc == 0 && claim_cqe(r, &own->u, &cqe))
            rc = completed(r, own, &cqe, spare, got);
        else if (rc == 0)
            rc = await_own(r, own);
    }
    if (rc > 0)
        mf__count(&own->requests, 1);
    return rc;
}

/* 1: a request; or negative. */
static inline int receive_shared(struct ring *r, struct mf__io *spare, struct mf__io **got)
{
    struct mf__cqe cqe;
    int rc;

    do {
        rc = atomic_load_explicit(&r->state, memory_order_relaxed) < 0 ? -EINTR : prepare(r);
        if (rc == 0 && claim_cqe(r, &r->u, &cqe))
            rc = completed(r, NULL, &cqe, spare, got);
        else if (rc == 0 && transport_ring_may_wait(r))
            rc = await(r);
    } while (rc == 0);
    if (rc < 0 || another_must_wait(r, spare)) {
        transport_ring_leave(r);
        mf__ring_flush(&r->ch, NULL);
        mf__ring_call(&r->ch);
    }
    return rc;
}

static int ring_receive(struct mf__channel *ch, struct mf__io *spare, struct mf__io **got)
{
    struct ring *r = ring_of(ch);
    int rc = 0;

    if (atomic_load_explicit(&r->u.shut, memory_order_relaxed))
        return -ENODEV;
    if (spare->commit_id)
        give_back_unanswered(ch, spare);
    if (spare->own)
        rc = receive_own(r, spare->own, spare, got);
    if (rc == 0)
        rc = receive_shared(r, spare, got);
    if (rc <= 0)
        return rc;
    *got = spare;
    if (atomic_load_explicit(&ch->calling, memory_order_relaxed) != MF__OWN_RINGS)
        spare->own = NULL; /* its answer goes out on the shared one */
    return 0;
}

/* ---- the end --------------------------------------------------------------------------------------- */

static uint32_t come_back(struct ring *r, struct uring *u)
{
    struct mf__cqe cqe;
    uint32_t n = 0;

    (void)mf__ring_commit_waiting(r, u);
    while (claim_cqe(r, u, &cqe))
        n += cqe.user_data < r->count;
    return n;
}

bool mf__ring_take_back(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t n = come_back(r, &r->u);

    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        n += come_back(r, &own->u);
    /* One that was refused never had a request under way, and not each of its entries tells that it is gone. */
    return atomic_fetch_add(&r->gone, n) + n >= r->armed || atomic_load(&r->state) < 0;
}

/* ---- answers --------------------------------------------------------------------------------------- */

/* Gather the body where the request's payload was. At most one piece lies in the entry's own memory. */
static void lay_body(struct entry *e, const struct iovec *iov, int n)
{
    size_t done = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len && iov[i].iov_base != e->at + done)
            memmove(e->at + done, iov[i].iov_base, iov[i].iov_len);
        done += iov[i].iov_len;
    }
}

/* For a limit that need not be exact. */
static void transport_ring_count_held(struct uring *u)
{
    uint32_t held = atomic_load_explicit(&u->held, memory_order_relaxed);

    atomic_store_explicit(&u->held, held + 1, memory_order_relaxed);
}

MF__COLD static void give_to_reader(struct ring *r, uint32_t index)
{
    mf__ring_let_wait(r, &r->u, index);
    mf__ring_nudge(r);
}

/* The reader's own ring, if the shared one has somebody else to wait there. */
static inline struct mf__own_ring *own_of(struct ring *r, const struct mf__io *io)
{
    return io->own && (atomic_load(&r->led) || atomic_load(&r->followers)) ? io->own : NULL;
}

/*
 * While a system call lets another task run, the processor forgets where the functions that led to it return to. So an
 * answer is best submitted where few have been called, by the receive that follows, and several at once if there is more
 * to do.
 */
static int commit_or_hold(struct ring *r, const struct mf__io *io)
{
    struct uring *u = into(r, own_of(r, io));

    if (io->receives_next) {
        transport_ring_count_held(u);
        mf__ring_let_wait(r, u, io->entry);
        return MF__SENT_LATER;
    }
    if (!answers_wait(u))
        return mf__ring_commit(r, u, io->entry);
    mf__ring_let_wait(r, u, io->entry);
    return mf__ring_commit_waiting(r, u);
}

static int ring_send(struct mf__channel *ch, struct mf__io *io, uint64_t unique, int error, const struct iovec *iov,
                     int n)
{
    struct ring *r = ring_of(ch);
    struct entry *e = &r->entries[io->entry];
    size_t body = mf__iov_length(iov, n);
    int rc = 0;

    if (!io->commit_id)
        return -ENOENT; /* answered: the entry is the kernel's again */
    io->commit_id = 0;
    if (body > r->opts.max_payload) {
        rc = -EINVAL; /* the kernel would not read as much */
        error = -EIO;
        body = 0;
        n = 0;
    }
    lay_body(e, iov, n);
    mf__put_header(e->head->in_out, body, error, unique);
    e->head->ring_ent_in_out.payload_sz = (uint32_t)body;
    if (!io->own_thread) {
        give_to_reader(r, io->entry);
        return rc;
    }
    n = commit_or_hold(r, io);
    /* Where the system had no memory the answer goes out a little later. */
    return rc < 0 || passing(n) ? rc : n;
}

/* Notifications and answers to INTERRUPT travel on the device, beside the ring. */
static int ring_write_raw(struct mf__channel *ch, const void *msg, size_t len)
{
    struct mf__channel *device = ring_of(ch)->opts.device;

    return device->ops->write_raw(device, msg, len);
}

static int ring_clone(struct mf__channel *ch, struct mf__channel **out)
{
    (void)ch;
    (void)out;
    return -ENOTSUP;
}

const struct mf__transport mf__ring_transport = {
    .name = "io_uring",
    .kind = MF_TRANSPORT_URING,
    .receive = ring_receive,
    .send = ring_send,
    .write_raw = ring_write_raw,
    .clone = ring_clone,
    .wake = mf__ring_wake,
    .close = mf__ring_close,
};

/* ==== core/transport/ring_follow.c ==== */
/* SPDX-License-Identifier: MIT */
/* ring_follow.c - who waits for what comes out of a ring, and who follows. */

void mf__ring_call(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (atomic_load(&r->followers) == 0 || atomic_load(&r->led))
        return;
    pthread_mutex_lock(&r->follow);
    if (r->calls < atomic_load(&r->followers))
        r->calls++;
    count_one(&r->counts.calls);
    pthread_mutex_unlock(&r->follow);
    pthread_cond_signal(&r->called);
}

/*
 * One follower looks from time to time while nobody calls: is whoever took the last request still busy with it? Where
 * many looks were in vain that is left to a thread that looks anyway, see mf__ring_look().
 */
struct transport_ring_follow_watch {
    bool mine;
    uint32_t head;    /* at the last look */
    uint64_t wait_ns; /* until the next */
};

/* Has nobody taken a request since the last look, nor waits for one, although there is something to do? */
static bool left_alone(struct ring *r, uint32_t head, uint32_t head_then)
{
    if (head != head_then || atomic_load(&r->led) || !(anything_completed(&r->u) || atomic_load(&r->u.waiting)))
        return false;
    count_one(&r->counts.blocked);
    atomic_store(&r->vain_looks, 0);
    return true;
}

static bool followers_look(const struct ring *r)
{
    return somebody_looks(r) && atomic_load(&r->vain_looks) < MF__PATIENCE;
}

/* With the lock held. Whether to go. */
static bool look_after(struct ring *r, struct transport_ring_follow_watch *w)
{
    uint32_t head;

    if (mf__cond_wait(&r->called, &r->follow, w->wait_ns))
        return false;
    head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);
    if (left_alone(r, head, w->head))
        return true;
    atomic_fetch_add(&r->vain_looks, 1);
    w->wait_ns = head == w->head && atomic_load(&r->led) ? IDLE_WATCH_NS : MF__WATCH_NS;
    w->head = head;
    return false;
}

void mf__ring_follow(struct ring *r, bool served)
{
    struct transport_ring_follow_watch w = { .head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed), .wait_ns = MF__WATCH_NS };
    int cancel;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else it would end with the lock */
    pthread_mutex_lock(&r->follow);
    atomic_fetch_add(&r->followers, 1);
    while (r->calls == 0) {
        bool transport_ring_follow_watch = followers_look(r);

        if (!r->watched)
            w.mine = r->watched = true;
        /* Who gave up leading before he could see this one called nobody. */
        if (!transport_ring_follow_watch && !(served && somebody_looks(r)) && !atomic_load(&r->led))
            break;
        if (!transport_ring_follow_watch || !w.mine)
            pthread_cond_wait(&r->called, &r->follow);
        else if (look_after(r, &w))
            break;
        served = false;
    }
    atomic_fetch_sub(&r->followers, 1);
    if (r->calls)
        r->calls--;
    if (w.mine) {
        r->watched = false;
        pthread_cond_signal(&r->called); /* the next one watches */
    }
    pthread_mutex_unlock(&r->follow);
    pthread_setcancelstate(cancel, NULL);
}

/* How it is to be done has changed. */
static void tell_followers(struct ring *r)
{
    if (atomic_load(&r->followers) == 0)
        return;
    pthread_mutex_lock(&r->follow); /* else one that has just looked would sleep all the same */
    pthread_mutex_unlock(&r->follow);
    pthread_cond_broadcast(&r->called);
}

void mf__ring_look(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);
    uint32_t head = atomic_load_explicit(r->u.cq_head, memory_order_relaxed);

    if (atomic_load(&r->followers) && !followers_look(r) && left_alone(r, head, r->head_then)) {
        mf__ring_call(ch);
        tell_followers(r); /* who is not called looks again */
    }
    r->head_then = head;
}

void mf__ring_nudge(struct ring *r)
{
    /* Until that wake-up is seen all answers that wait are its concern. */
    if (atomic_exchange(&r->nudged, true))
        return;
    count_one(&r->counts.nudges);
    if (!mf__ring_send_message(r))
        mf__uring_wake(&r->u);
    mf__ring_call(&r->ch);
}

void mf__ring_wake(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    mf__uring_wake(&r->u);
    mf__ring_call(&r->ch);
    tell_followers(r);
}

/* ==== core/transport/ring_make.c ==== */
/* SPDX-License-Identifier: MIT */
/* ring_make.c - whether rings can be had, making and unmaking them; how far one has come. */


/* ---- can it be had? ------------------------------------------------------------------------------------ */

int mf__ring_probe(const struct mf__uring_sys *sys, void *kernel, char *reason, size_t room)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 };
    int fd = sys->setup(kernel, SUBMISSIONS, &p);

    if (fd < 0) {
        snprintf(reason, room, "io_uring_setup is refused here: %s", mf__strerror(-fd));
        return fd;
    }
    sys->close(kernel, fd);
    if (sys->queues(kernel) == 0) {
        snprintf(reason, room, "the number of possible CPUs is not known");
        return -ENOTSUP;
    }
    return 0;
}
/* ---- making and unmaking --------------------------------------------------------------------------- */

void mf__uring_init(struct uring *u, const struct mf__uring_sys *sys, void *kernel)
{
    u->sys = sys;
    u->kernel = kernel;
    pthread_mutex_init(&u->submit, NULL);
}

/* The kernel releases a ring only when all maps of it are gone, and the descriptor. */
static void uring_unmap(struct uring *u)
{
    if (u->sqes)
        u->sys->unmap(u->kernel, u->sqes, u->sqes_size);
    if (u->maps)
        u->sys->unmap(u->kernel, u->maps, u->maps_size);
}

void mf__uring_release(struct uring *u)
{
    uring_unmap(u);
    u->sys->close(u->kernel, u->fd);
}

void mf__uring_forget(struct uring *u)
{
    if (!atomic_exchange(&u->shut, true))
        uring_unmap(u);
    atomic_store(&u->waiting, 0);
    pthread_mutex_init(&u->submit, NULL);
}

/* If it was ever open. */
static void release_once(struct uring *u)
{
    pthread_mutex_lock(&u->submit);
    if (!atomic_exchange(&u->shut, true) && u->sqes)
        mf__uring_release(u);
    mf__uring_unlock(u);
}

void mf__uring_shut(struct ring *r, struct uring *u)
{
    if (!atomic_load(&u->shut))
        (void)mf__ring_commit_waiting(r, u); /* no reader is left to do it; the entries end with the ring */
    release_once(u);
}

void mf__ring_shut(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    release_once(&r->waker); /* first: another ring may come to have the descriptor of the one that it wakes */
    mf__uring_shut(r, &r->u);
    mf__owns_shut(r);
}

static void transport_ring_make_init_locks(struct ring *r)
{
    pthread_mutex_init(&r->follow, NULL);
    mf__cond_init(&r->called);
}

void mf__ring_forget(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    mf__uring_forget(&r->u);
    mf__uring_forget(&r->waker);
    mf__owns_forget(r);
    transport_ring_make_init_locks(r);
}

void mf__ring_close_inherited(struct mf__channel *ch)
{
    struct ring *r = ring_of(ch);

    if (ch->fd < 0)
        return;
    close(ch->fd);
    if (r->waker.sqes && !atomic_load(&r->waker.shut))
        close(r->waker.fd);
    mf__owns_close_inherited(r);
}

static void ring_free(struct ring *r)
{
    mf__owns_free(r);
    mf__region_free(&r->pools);
    mf__region_free(&r->payloads);
    mf__region_free(&r->headers);
    free(r->alive);
    free(r->entries);
    pthread_cond_destroy(&r->called);
    pthread_mutex_destroy(&r->follow);
    pthread_mutex_destroy(&r->waker.submit);
    pthread_mutex_destroy(&r->u.submit);
    free(r);
}

void mf__ring_close(struct mf__channel *ch)
{
    mf__ring_shut(ch);
    ring_free(ring_of(ch));
}

static int uring_map(struct uring *u, const struct mf__uring_params *p)
{
    size_t sq_size = p->sq.c + p->sq_entries * sizeof(uint32_t);
    size_t cq_size = p->cq.b + p->cq_entries * sizeof(struct mf__cqe);
    void *at;
    int rc;

    u->maps_size = sq_size > cq_size ? sq_size : cq_size;
    rc = u->sys->map(u->kernel, u->fd, u->maps_size, 0, &at);
    if (rc < 0)
        return rc;
    u->maps = at;
    u->sqes_size = p->sq_entries * sizeof(struct mf__sqe);
    rc = u->sys->map(u->kernel, u->fd, u->sqes_size, MF__URING_OFF_SQES, &at);
    if (rc < 0)
        return rc;
    u->sqes = at;
    u->sq_head = (void *)(u->maps + p->sq.head);
    u->sq_tail = (void *)(u->maps + p->sq.tail);
    u->sq_mask = *(uint32_t *)(void *)(u->maps + p->sq.ring_mask);
    u->sq_array = (void *)(u->maps + p->sq.c);
    u->cq_head = (void *)(u->maps + p->cq.head);
    u->cq_tail = (void *)(u->maps + p->cq.tail);
    u->cq_mask = *(uint32_t *)(void *)(u->maps + p->cq.ring_mask);
    u->cqes = (void *)(u->maps + p->cq.b);
    return 0;
}

int mf__uring_open(struct uring *u, uint32_t submissions, uint32_t completions)
{
    struct mf__uring_params p = { .flags = MF__URING_SETUP_SQE128 | MF__URING_SETUP_CQSIZE, .cq_entries = completions };
    int rc;

    u->submissions = submissions;
    u->fd = u->sys->setup(u->kernel, submissions, &p);
    if (u->fd < 0)
        return u->fd;
    rc = uring_map(u, &p);
    if (rc < 0)
        mf__uring_release(u);
    return rc;
}

static int ring_open(struct ring *r)
{
    bool at_once = !r->opts.last && r->opts.depth > SUBMISSIONS;

    return mf__uring_open(&r->u, at_once ? r->opts.depth : SUBMISSIONS, 2 * (r->count + SUBMISSIONS));
}

static void entry_init(struct ring *r, uint32_t i, uint32_t queue)
{
    struct entry *e = &r->entries[i];
    size_t head_room = (size_t)mf__round_up(sizeof(*e->head), MF__CACHE_LINE);

    e->queue = queue;
    e->head = (void *)(r->headers.base + i * head_room);
    e->payload = r->payloads.base + i * r->payload_room;
    e->iov[0] = (struct iovec){ .iov_base = e->head, .iov_len = sizeof(*e->head) };
    if (!r->opts.pool)
        e->iov[1] = (struct iovec){ .iov_base = e->payload, .iov_len = r->opts.max_payload };
}

static int ring_memory(struct ring *r)
{
    const struct mf__ring_opts *o = &r->opts;
    int rc;

    if (!o->step || o->first_queue >= o->queues || !o->depth)
        return -EINVAL;
    r->queue_count = (o->queues - o->first_queue + o->step - 1) / o->step;
    r->count = r->queue_count * o->depth;
    r->payload_room = (size_t)mf__round_up(o->max_payload, MF__PAGE) + BODY_SLACK + MF__PAGE;
    r->entries = calloc(r->count, sizeof(*r->entries));
    r->alive = calloc(r->queue_count, sizeof(*r->alive));
    if (!r->entries || !r->alive)
        return -ENOMEM;
    rc = mf__region_new(&r->headers, r->count * mf__round_up(sizeof(struct fuse_uring_req_header), MF__CACHE_LINE));
    if (rc == 0)
        rc = mf__region_new(&r->payloads, r->count * r->payload_room);
    if (rc == 0 && o->pool)
        rc = mf__region_new(&r->pools, (size_t)r->count * o->max_payload);
    if (rc < 0)
        return rc;
    mf__uring_keep_from_children(&r->headers);
    mf__uring_keep_from_children(&r->payloads);
    mf__uring_keep_from_children(&r->pools);
    for (uint32_t i = 0; i < r->count; i++)
        entry_init(r, i, o->first_queue + (r->queue_count - 1 - i / o->depth) * o->step);
    for (uint32_t i = 0; i < r->queue_count; i++)
        atomic_init(&r->alive[i], o->depth);
    return 0;
}

int mf__ring_channel(const struct mf__ring_opts *opts, struct mf__channel **out)
{
    struct ring *r;
    int rc;

    if (posix_memalign((void **)&r, MF__CACHE_LINE, sizeof(*r)) != 0)
        return -ENOMEM;
    memset(r, 0, sizeof(*r));
    r->opts = *opts;
    mf__uring_init(&r->u, opts->sys, opts->kernel);
    mf__uring_init(&r->waker, opts->sys, opts->kernel);
    atomic_init(&r->missing, opts->others);
    transport_ring_make_init_locks(r);
    rc = ring_memory(r);
    if (rc == 0)
        rc = ring_open(r);
    if (rc < 0) {
        ring_free(r);
        return rc;
    }
    r->ch.ops = &mf__ring_transport;
    r->ch.index = opts->index;
    r->ch.fd = r->u.sys == &mf__uring_system ? r->u.fd : -1; /* what a forked child closes */
    atomic_init(&r->ch.refs, 1);
    *out = &r->ch;
    return 0;
}

/* ---- how far it has come ------------------------------------------------------------------------ */

void mf__ring_counts(struct mf__channel *ch, struct mf__ring_counts *out)
{
    struct ring *r = ring_of(ch);

    *out = (struct mf__ring_counts){
        .behind = atomic_load_explicit(&r->counts.behind, memory_order_relaxed),
        .waits = atomic_load_explicit(&r->counts.waits, memory_order_relaxed),
        .batches = atomic_load_explicit(&r->counts.batches, memory_order_relaxed),
        .calls = atomic_load_explicit(&r->counts.calls, memory_order_relaxed),
        .blocked = atomic_load_explicit(&r->counts.blocked, memory_order_relaxed),
        .nudges = atomic_load_explicit(&r->counts.nudges, memory_order_relaxed),
    };
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        out->own += atomic_load_explicit(&own->requests, memory_order_relaxed);
    for (uint32_t i = 0; i < r->count; i++)
        out->requests += atomic_load_explicit(&r->entries[i].requests, memory_order_relaxed);
}

int mf__ring_state(struct mf__channel *ch)
{
    return atomic_load(&ring_of(ch)->state);
}

void mf__ring_refuse(struct mf__channel *ch, int error)
{
    struct ring *r = ring_of(ch);
    int state = atomic_load(&r->state);

    while (state >= 0 && !atomic_compare_exchange_weak(&r->state, &state, error))
        continue;
    mf__ring_wake(ch);
}

/* ==== core/transport/ring_own.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * ring_own.c - rings of readers' own, for where handlers wait.
 *
 * On the ring that readers share, whoever takes a request whose handler may wait calls another one first: a second wake-up
 * for each request, and one that comes too late where handlers wait once in a hundred times. But an entry belongs to the
 * ring on which it was committed last, and the kernel gives the next request to the entry that came back last. So where
 * handlers wait each reader commits its answers on a ring of its own, and waits there: what comes to it wakes it and nobody
 * else, and while it is in a handler its entry is not there to be given anything. As many readers come to have an entry as
 * requests are in hand at once; the entries that were not needed stay on the shared ring, where one reader at least waits
 * for what is too much for the others, and takes that to a ring of its own in turn.
 *
 * What is given up is to answer several requests in one system call. So where handlers return at once answers go out on the
 * shared ring again, and take their entries along. An entry that gets no request stays where it is: its reader may not leave
 * before somebody else waits in its place.
 */


#define OWN_SUBMISSIONS 4u /* an answer, and wake-ups */

bool mf__own_ring_holds(const struct mf__own_ring *own)
{
    return holds(own);
}

bool mf__ring_has_orphans(struct mf__channel *ch)
{
    return atomic_load(&ring_of(ch)->orphans) > 0;
}

bool mf__own_ring_wake(struct mf__own_ring *own)
{
    if (!atomic_load(&own->awaited))
        return false;
    mf__uring_wake(&own->u);
    return true;
}

static bool take(struct mf__own_ring *own)
{
    if (atomic_exchange(&own->taken, true))
        return false;
    if (holds(own))
        atomic_fetch_sub(&own->home->orphans, 1);
    return true;
}

static struct mf__own_ring *take_one_there_is(struct ring *r)
{
    struct mf__own_ring *first = atomic_load(&r->owns), *own;

    for (own = first; own; own = own->next) {
        if (holds(own) && take(own))
            return own;
    }
    for (own = first; own && !take(own);)
        own = own->next;
    return own;
}

static int open_own(struct mf__own_ring *own)
{
    int rc = mf__uring_open(&own->u, OWN_SUBMISSIONS, 4 * OWN_SUBMISSIONS);

    if (rc < 0)
        return rc;
    rc = own->u.sys->attach(own->u.kernel, own->u.fd, own->home->opts.device);
    if (rc < 0)
        mf__uring_release(&own->u);
    return rc;
}

/* Unless the shared one is shut: then nobody would shut this one. */
static bool enlist(struct ring *r, struct mf__own_ring *own)
{
    bool open;

    pthread_mutex_lock(&r->u.submit);
    open = !atomic_load(&r->u.shut);
    if (open) {
        own->next = atomic_load(&r->owns);
        atomic_store(&r->owns, own);
    }
    mf__uring_unlock(&r->u);
    return open;
}

static void free_own(struct mf__own_ring *own)
{
    pthread_mutex_destroy(&own->u.submit);
    free(own);
}

static int transport_ring_own_make(struct ring *r, struct mf__own_ring **out)
{
    struct mf__own_ring *own = calloc(1, sizeof(*own));
    int rc;

    if (!own)
        return -ENOMEM;
    own->home = r;
    mf__uring_init(&own->u, r->u.sys, r->u.kernel);
    atomic_init(&own->taken, true);
    rc = open_own(own);
    if (rc == 0 && !enlist(r, own)) {
        mf__uring_release(&own->u);
        rc = -ENODEV;
    }
    if (rc < 0)
        free_own(own);
    else
        *out = own;
    return rc;
}

int mf__ring_take_own(struct mf__channel *ch, struct mf__own_ring **out)
{
    struct ring *r = ring_of(ch);

    *out = take_one_there_is(r);
    return *out ? 0 : transport_ring_own_make(r, out);
}

void mf__own_ring_give(struct mf__own_ring *own)
{
    struct ring *r = own->home;
    bool orphaned = holds(own);

    if (orphaned) {
        atomic_fetch_add(&r->orphans, 1);
        atomic_store(&r->ch.calling, MF__OWN_RINGS);
    }
    atomic_store(&own->taken, false);
    if (orphaned)
        mf__ring_wake(&r->ch);
}

void mf__owns_shut(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        mf__uring_shut(r, &own->u);
}

void mf__owns_forget(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        mf__uring_forget(&own->u);
}

void mf__owns_close_inherited(struct ring *r)
{
    for (struct mf__own_ring *own = atomic_load(&r->owns); own; own = own->next)
        close(own->u.fd);
}

void mf__owns_free(struct ring *r)
{
    struct mf__own_ring *own = atomic_load(&r->owns);

    while (own) {
        struct mf__own_ring *next = own->next;

        free_own(own);
        own = next;
    }
}
#undef OWN_SUBMISSIONS

/* ==== core/transport/ring_submit.c ==== */
/* SPDX-License-Identifier: MIT */
/* ring_submit.c - what goes into a ring: entries, answers, wake-ups. */


/* ---- submission: all with the lock held ------------------------------------------------------------ */

/* The next submission entry, cleared. The first one each time: it is in the cache, and the kernel has read what was there. */
static MF__FLAT struct mf__sqe *next_sqe(struct uring *u, uint8_t opcode, uint64_t user_data)
{
    uint32_t tail = atomic_load_explicit(u->sq_tail, memory_order_relaxed) + u->queued;
    uint32_t i = u->queued++;
    struct mf__sqe *sqe = &u->sqes[i];

    mf__zero(sqe, sizeof(*sqe));
    sqe->opcode = opcode;
    sqe->user_data = user_data;
    u->sq_array[tail & u->sq_mask] = i;
    return sqe;
}

static MF__FLAT struct mf__sqe *next_command(struct uring *u, uint32_t op, uint64_t user_data)
{
    struct mf__sqe *sqe = next_sqe(u, MF__URING_OP_URING_CMD, user_data);

    sqe->flags = MF__URING_FIXED_FILE;
    sqe->cmd_op = op;
    return sqe;
}

/* Take back what the kernel did not take of the commands that began at `tail`: later nobody would know of it. */
MF__COLD static int settle_submission(struct uring *u, uint32_t tail, uint32_t n, int rc)
{
    uint32_t head = atomic_load_explicit(u->sq_head, memory_order_acquire);

    u->taken = head - tail;
    if (u->taken == n)
        return 0;
    atomic_store_explicit(u->sq_tail, head, memory_order_relaxed);
    return rc < 0 ? rc : -EAGAIN;
}

/* Submit what next_sqe() gave. 0, or an error: then only the first u->taken of them are out. */
static MF__FLAT int transport_ring_submit_submit(struct uring *u)
{
    uint32_t tail = atomic_load_explicit(u->sq_tail, memory_order_relaxed);
    uint32_t n = u->queued;
    int rc;

    u->queued = 0;
    u->taken = n;
    atomic_store_explicit(u->sq_tail, tail + n, memory_order_release);
    HAND_OVER(u);
    do {
        rc = u->sys->enter(u->kernel, u->fd, n, 0, 0);
    } while (rc == -EINTR && atomic_load_explicit(u->sq_head, memory_order_acquire) == tail);
    return rc == (int)n ? 0 : settle_submission(u, tail, n, rc);
}

static void next_register(struct ring *r, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(&r->u, FUSE_IO_URING_CMD_REGISTER, index);

    sqe->addr = (uintptr_t)e->iov;
    sqe->len = 2;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static MF__FLAT void next_commit(struct ring *r, struct uring *u, uint32_t index)
{
    struct entry *e = &r->entries[index];
    struct fuse_uring_cmd_req cmd = { .qid = (uint16_t)e->queue, .commit_id = e->commit_id };
    struct mf__sqe *sqe = next_command(u, FUSE_IO_URING_CMD_COMMIT_AND_FETCH, index);

    memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static int submit_pool(struct ring *r, uint32_t n)
{
    const struct entry *e = &r->entries[n * r->opts.depth];
    size_t size = (size_t)r->opts.depth * r->opts.max_payload;
    struct mf__fuse_bufpool pool = { .address = (uintptr_t)r->pools.base + n * size,
                                     .length = (uint32_t)size,
                                     .queue = (uint16_t)e->queue };
    struct mf__sqe *sqe = next_command(&r->u, MF__FUSE_ADD_BUFPOOL, POOL_DATA);

    memcpy(sqe->cmd, &pool, sizeof(pool));
    return transport_ring_submit_submit(&r->u);
}

/* Only the last queue is not registered. */
static bool last_is_left(const struct ring *r)
{
    return r->armed + r->opts.depth == r->count;
}

/* The first one alone, since the kernel may refuse them all; then as many of a queue as go into one submission. */
static int register_some(struct ring *r)
{
    uint32_t left = r->opts.depth - r->armed % r->opts.depth;
    uint32_t n = left < r->u.submissions ? left : r->u.submissions;
    int rc;

    if (r->armed == 0 && !last_is_left(r))
        n = 1;
    for (uint32_t i = 0; i < n; i++)
        next_register(r, r->armed + i);
    rc = transport_ring_submit_submit(&r->u);
    r->armed += r->u.taken;
    return r->u.taken && passing(rc) ? 0 : rc; /* the rest may go better */
}

static void mark_registered(struct ring *r)
{
    int none = 0;

    if (atomic_compare_exchange_strong(&r->state, &none, 1) && r->opts.last) {
        struct ring *last = ring_of(r->opts.last);

        if (atomic_fetch_sub(&last->missing, 1) == 1)
            r->opts.last->ops->wake(r->opts.last);
    }
}

int mf__ring_register(struct ring *r)
{
    int rc = 0;

    if (!r->attached)
        rc = r->u.sys->attach(r->u.kernel, r->u.fd, r->opts.device);
    for (uint32_t i = 0; rc == 0 && r->opts.pool && !r->attached && i < r->queue_count; i++)
        rc = submit_pool(r, i);
    r->attached = r->attached || rc == 0;
    while (rc == 0 && r->armed < r->count) {
        if (last_is_left(r) && atomic_load(&r->missing))
            return 0;
        rc = register_some(r);
        if (anything_completed(&r->u))
            break;
    }
    if (rc < 0 && r->armed + r->opts.depth > r->count) {
        /* Each queue has an entry: serve with fewer. Those that were not armed are gone. */
        atomic_fetch_add(&r->gone, r->count - r->armed);
        r->armed = r->count;
        rc = 0;
    }
    if (rc == 0 && r->armed == r->count)
        mark_registered(r);
    return rc;
}

int mf__ring_register_again(struct ring *r, uint32_t index)
{
    int rc = -ENODEV;

    pthread_mutex_lock(&r->u.submit);
    if (!atomic_load_explicit(&r->u.shut, memory_order_relaxed)) {
        next_register(r, index);
        rc = transport_ring_submit_submit(&r->u);
    }
    mf__uring_unlock(&r->u);
    return rc;
}

/* ---- the lock -------------------------------------------------------------------------------------- */

/* One that wakes whoever waits for completions. 0, -ENODEV: shut; or no memory. Lock held. */
static int submit_wake(struct uring *u)
{
    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return 0;
    next_sqe(u, MF__URING_OP_NOP, WAKE_DATA);
    return transport_ring_submit_submit(u);
}

/* With no lock held. Who has it now sends them when he gives it up. false: there was no memory, and the next one tries. */
MF__COLD static bool send_wanted(struct uring *u)
{
    bool sent = true;

    while (sent && atomic_load(&u->wake_ups) && pthread_mutex_trylock(&u->submit) == 0) {
        atomic_store(&u->waking, true);
        if (atomic_load(&u->wake_ups)) { /* still: only who has the lock takes from it */
            sent = !passing(submit_wake(u));
            atomic_fetch_sub(&u->wake_ups, sent);
        }
        atomic_store(&u->waking, false);
        pthread_mutex_unlock(&u->submit);
    }
    return sent;
}

static inline void release(struct uring *u)
{
    pthread_mutex_unlock(&u->submit);
    if (atomic_load(&u->wake_ups))
        (void)send_wanted(u);
}

/* Never waits for the lock: whoever has it sends the wake-up, and may be a reader that lets others run first. */
void mf__uring_wake(struct uring *u)
{
    do {
        atomic_fetch_add(&u->wake_ups, 1);
        for (uint32_t tries = TRIES; !send_wanted(u) && tries; tries--)
            nap();
    } while (atomic_exchange(&u->left, false)); /* while the lock was here: who is woken sends these */
}

void mf__uring_unlock(struct uring *u)
{
    release(u);
    if (atomic_load(&u->left))
        mf__uring_wake(u);
}

/* When it is first needed. With its lock held. false: there is none. */
static bool open_waker(struct ring *r)
{
    struct uring *u = &r->waker;

    if (!u->sqes && !atomic_load(&u->shut) && mf__uring_open(u, 1, 2) < 0)
        atomic_store(&u->shut, true); /* do without */
    return !atomic_load(&u->shut);
}

/* With the waker's lock held: while it is open the other ring is, too. */
static bool send_message(struct uring *u, int fd)
{
    struct mf__sqe *sqe = next_sqe(u, MF__URING_OP_MSG_RING, 0);

    sqe->flags = MF__URING_SKIP_SUCCESS;
    sqe->fd = fd;
    sqe->offset = WAKE_DATA;
    if (transport_ring_submit_submit(u) < 0)
        return false;
    if (!anything_completed(u))
        return true;
    atomic_store(u->cq_head, atomic_load(u->cq_tail)); /* it failed */
    return false;
}

bool mf__ring_send_message(struct ring *r)
{
    bool sent;

    if (pthread_mutex_trylock(&r->waker.submit) != 0)
        return false;
    sent = open_waker(r) && send_message(&r->waker, r->u.fd);
    pthread_mutex_unlock(&r->waker.submit);
    return sent;
}

/*
 * For answers that are in the list. Who has the lock may be a reader that lets others run first, and gives it back and
 * takes it again faster than one who waits for it can be woken: some waited for a fifth of a second. So nobody waits, but
 * leaves his answers to him. Only who sends a wake-up is waited for: it may have let this thread run in the middle of it,
 * and it gives no answers.
 */
static bool lock_or_leave(struct uring *u)
{
    if (pthread_mutex_trylock(&u->submit) == 0)
        return true;
    if (atomic_load(&u->waking)) {
        pthread_mutex_lock(&u->submit);
        return true;
    }
    atomic_store(&u->left, true);
    return pthread_mutex_trylock(&u->submit) == 0; /* else he has not given it back since, and sees it then */
}

/* ---- commits --------------------------------------------------------------------------------------- */

void mf__ring_let_wait(struct ring *r, struct uring *u, uint32_t index)
{
    uint32_t head = atomic_load_explicit(&u->waiting, memory_order_relaxed);

    do {
        r->entries[index].next_commit = head;
    } while (!atomic_compare_exchange_weak_explicit(&u->waiting, &head, index + 1, memory_order_acq_rel,
                                                    memory_order_relaxed));
}

/* With the lock held, like what follows. */
static MF__FLAT int commit_one(struct ring *r, struct uring *u, uint32_t index)
{
    int rc;

    if (atomic_load_explicit(&u->shut, memory_order_relaxed))
        return -ENODEV;
    next_commit(r, u, index);
    rc = transport_ring_submit_submit(u);
    if (rc < 0)
        mf__ring_let_wait(r, u, index);
    return rc;
}

/* As many of a list as go into one submission; *next receives the rest. What fails waits again. */
static int commit_some(struct ring *r, struct uring *u, uint32_t *next)
{
    uint32_t batch[SUBMISSIONS];
    uint32_t n = 0;
    int rc;

    for (; *next && n < SUBMISSIONS; *next = r->entries[batch[n++]].next_commit) {
        batch[n] = *next - 1;
        next_commit(r, u, batch[n]);
    }
    if (n > 1)
        count_one(&r->counts.batches);
    rc = transport_ring_submit_submit(u);
    for (uint32_t i = u->taken; i < n; i++)
        mf__ring_let_wait(r, u, batch[i]);
    return rc;
}

MF__COLD static int commit_list(struct ring *r, struct uring *u, uint32_t next)
{
    int rc = 0;

    while (next && !atomic_load_explicit(&u->shut, memory_order_relaxed)) {
        int one = commit_some(r, u, &next);

        if (one < 0)
            rc = one;
    }
    return next ? -ENODEV : rc;
}

static MF__FLAT int commit_all(struct ring *r, struct uring *u)
{
    uint32_t first;

    if (atomic_load(&u->left))
        atomic_store(&u->left, false); /* before the list is taken: who adds to it later looks again */
    first = atomic_exchange_explicit(&u->waiting, 0, memory_order_acq_rel);
    atomic_store_explicit(&u->held, 0, memory_order_relaxed);
    if (first && !r->entries[first - 1].next_commit)
        return commit_one(r, u, first - 1);
    return commit_list(r, u, first);
}

int mf__ring_commit_waiting(struct ring *r, struct uring *u)
{
    int rc = 0, one;

    do {
        if (!lock_or_leave(u))
            return rc ? rc : MF__SENT_LATER;
        one = commit_all(r, u);
        release(u);
        rc = one < 0 ? one : rc;
    } while (atomic_load(&u->left));
    return rc;
}

int mf__ring_commit(struct ring *r, struct uring *u, uint32_t index)
{
    int rc;

    if (pthread_mutex_trylock(&u->submit) != 0) {
        mf__ring_let_wait(r, u, index);
        return mf__ring_commit_waiting(r, u);
    }
    rc = commit_one(r, u, index);
    release(u);
    if (atomic_load(&u->left))
        (void)mf__ring_commit_waiting(r, u);
    return rc;
}

/* ==== core/transport/uring_system.c ==== */
/* SPDX-License-Identifier: MIT */
/* uring_system.c - the io_uring calls of the real kernel, behind struct mf__uring_sys. */

#if defined(__linux__) && !defined(MF_NO_LINUX)
#include <sys/syscall.h>
#endif


#if defined(__linux__) && !defined(MF_NO_LINUX)
static uint32_t system_queues(void *kernel)
{
    FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
    unsigned first = 0, last = 0;
    int n;

    (void)kernel;
    if (!file)
        return 0;
    n = fscanf(file, "%u-%u", &first, &last);
    fclose(file);
    if (n == 1)
        last = first;
    return n < 1 || first != 0 ? 0 : last + 1;
}

static int system_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    long rc = syscall(MF__SYS_IO_URING_SETUP, entries, p);

    (void)kernel;
    return rc < 0 ? -errno : (int)rc;
}

static int system_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    long rc = syscall(MF__SYS_IO_URING_ENTER, fd, submit, wait, flags, NULL, 0);

    (void)kernel;
    return rc < 0 ? -errno : (int)rc;
}

static int system_attach(void *kernel, int fd, struct mf__channel *device)
{
    int32_t file = device->fd;

    (void)kernel;
    return syscall(MF__SYS_IO_URING_REGISTER, fd, MF__URING_REGISTER_FILES, &file, 1) < 0 ? -errno : 0;
}

static int system_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);

    (void)kernel;
    if (base == MAP_FAILED)
        return -errno;
    /* A child that does not exec would keep the ring, and with it the mount, alive. */
    madvise(base, size, MADV_DONTFORK);
    *out = base;
    return 0;
}

void mf__uring_keep_from_children(const struct mf__region *region)
{
    /* A forked child must not share pages that the kernel writes to: they would be copied under its feet. */
    if (region->base)
        madvise(region->base, region->size, MADV_DONTFORK);
}

#else

static uint32_t system_queues(void *kernel)
{
    (void)kernel;
    return 0;
}

static int system_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    (void)kernel;
    (void)entries;
    (void)p;
    return -ENOSYS;
}

static int system_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    (void)kernel;
    (void)fd;
    (void)submit;
    (void)wait;
    (void)flags;
    return -ENOSYS;
}

static int system_attach(void *kernel, int fd, struct mf__channel *device)
{
    (void)kernel;
    (void)fd;
    (void)device;
    return -ENOSYS;
}

static int system_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    (void)kernel;
    (void)fd;
    (void)size;
    (void)offset;
    (void)out;
    return -ENOSYS;
}

void mf__uring_keep_from_children(const struct mf__region *region)
{
    (void)region;
}

#endif

static void system_unmap(void *kernel, void *base, size_t size)
{
    (void)kernel;
    munmap(base, size);
}

static void system_close(void *kernel, int fd)
{
    (void)kernel;
    close(fd);
}

static bool system_over(void *kernel, struct mf__channel *device)
{
    struct pollfd p = { .fd = device->fd };

    (void)kernel;
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

const struct mf__uring_sys mf__uring_system = {
    .queues = system_queues,
    .setup = system_setup,
    .enter = system_enter,
    .attach = system_attach,
    .map = system_map,
    .unmap = system_unmap,
    .close = system_close,
    .over = system_over,
};

/* ==== core/vkernel/calls.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * calls.c - the system calls of io_uring over a virtual kernel: rings in memory, submissions carried out by the
 * caller, and waiting for completions.
 *
 * The maps are memory of their own that is really gone when it is unmapped, and a ring lives until descriptor and maps
 * are gone: who uses one too late, or forgets a map, is found out.
 */


#define MAX_ENTRIES 32768u

/* The front of a ring's map. Offsets are told at setup; these are ours. */
struct map {
    _Atomic uint32_t sq_head, sq_tail;
    uint32_t sq_mask, sq_entries;
    _Atomic uint32_t cq_head, cq_tail;
    uint32_t cq_mask, cq_entries;
};

struct late {
    struct mf__vk_link at;
    struct mf__cqe cqe;
};

static struct map *map_of(struct mf__vk_uring *u)
{
    return (void *)u->mapped;
}

static struct mf__cqe *cqes_of(struct mf__vk_uring *u)
{
    return (void *)(u->mapped + sizeof(struct map));
}

static uint32_t *array_of(struct mf__vk_uring *u)
{
    return (void *)(u->mapped + sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe));
}

/* ---- threads ------------------------------------------------------------------------------------ */

static pthread_once_t task_once = PTHREAD_ONCE_INIT;
static pthread_key_t task_key;

void mf__vk_task_put(struct mf__vk_task *task)
{
    if (atomic_fetch_sub(&task->refs, 1) == 1)
        free(task);
}

static void task_ends(void *arg)
{
    struct mf__vk_task *task = arg;

    atomic_store(&task->dead, true);
    mf__vk_task_put(task);
}

static void make_key(void)
{
    pthread_key_create(&task_key, task_ends);
}

static struct mf__vk_task *current_task(void)
{
    struct mf__vk_task *task;

    pthread_once(&task_once, make_key);
    task = pthread_getspecific(task_key);
    if (task)
        return task;
    task = calloc(1, sizeof(*task));
    if (!task)
        return NULL;
    atomic_init(&task->refs, 1);
    if (pthread_setspecific(task_key, task) != 0) {
        free(task);
        return NULL;
    }
    return task;
}

/* ---- rings: all with the lock held -------------------------------------------------------------- */

static struct mf__vk_uring *vkernel_calls_find(struct mf_vkernel *vk, int fd)
{
    for (struct mf__vk_link *l = vk->urings.next; l != &vk->urings; l = l->next) {
        struct mf__vk_uring *u = MF__VK_OF(l, struct mf__vk_uring, all);

        if (u->open && u->fd == fd)
            return u;
    }
    return NULL;
}

static void drop_overflow(struct mf__vk_uring *u)
{
    while (!mf__vk_list_empty(&u->overflow)) {
        struct late *late = MF__VK_OF(u->overflow.next, struct late, at);

        mf__vk_list_del(&late->at);
        free(late);
    }
}

/* Once nobody has it any more. Its entries go before its file: the connection may end with that. */
static void release_if_unused(struct mf__vk_uring *u)
{
    if (u->open || u->mapped || u->mapped_sqes || u->users)
        return;
    mf__vk_list_del(&u->all);
    mf__vk_drop_entries(u);
    drop_overflow(u);
    if (u->file)
        mf__vk_chan_drop(u->file);
    mf__region_free(&u->maps);
    mf__region_free(&u->sqes);
    pthread_cond_destroy(&u->posted);
    free(u);
}

static bool put_cqe(struct mf__vk_uring *u, uint64_t user_data, int32_t res)
{
    struct map *m = map_of(u);
    struct mf__cqe *cqe;

    if (u->tail - atomic_load_explicit(&m->cq_head, memory_order_acquire) == u->cq_entries)
        return false;
    cqe = &cqes_of(u)[u->tail & (u->cq_entries - 1)];
    __atomic_store_n(&cqe->user_data, user_data, __ATOMIC_RELAXED);
    __atomic_store_n(&cqe->res, res, __ATOMIC_RELAXED);
    __atomic_store_n(&cqe->flags, 0, __ATOMIC_RELAXED);
    atomic_store_explicit(&m->cq_tail, ++u->tail, memory_order_release);
    return true;
}

static void flush_overflow(struct mf__vk_uring *u)
{
    while (!mf__vk_list_empty(&u->overflow)) {
        struct late *late = MF__VK_OF(u->overflow.next, struct late, at);

        if (!put_cqe(u, late->cqe.user_data, late->cqe.res))
            return;
        mf__vk_list_del(&late->at);
        free(late);
    }
}

void mf__vk_post_cqe(struct mf__vk_uring *u, uint64_t user_data, int32_t res)
{
    struct late *late;

    if (!u || !u->mapped)
        return;
    if (mf__vk_list_empty(&u->overflow) && put_cqe(u, user_data, res)) {
        pthread_cond_broadcast(&u->posted);
        return;
    }
    late = calloc(1, sizeof(*late));
    if (!late)
        return;
    late->cqe = (struct mf__cqe){ .user_data = user_data, .res = res };
    mf__vk_list_add(&late->at, &u->overflow);
    pthread_cond_broadcast(&u->posted);
}

static uint32_t power_of_two(uint32_t n)
{
    uint32_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* ---- the calls ---------------------------------------------------------------------------------- */

static uint32_t call_queues(void *kernel)
{
    struct mf_vkernel *vk = kernel;

    return vk->opts.queues;
}

static int make_maps(struct mf__vk_uring *u)
{
    size_t size = sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe) + u->sq_entries * sizeof(uint32_t);
    struct map *m;
    int rc = mf__region_new(&u->maps, size);

    if (rc == 0)
        rc = mf__region_new(&u->sqes, u->sq_entries * sizeof(struct mf__sqe));
    if (rc < 0)
        return rc;
    m = (void *)u->maps.base;
    m->sq_mask = u->sq_entries - 1;
    m->sq_entries = u->sq_entries;
    m->cq_mask = u->cq_entries - 1;
    m->cq_entries = u->cq_entries;
    return 0;
}

static void tell_offsets(const struct mf__vk_uring *u, struct mf__uring_params *p)
{
    p->sq_entries = u->sq_entries;
    p->cq_entries = u->cq_entries;
    p->sq.head = offsetof(struct map, sq_head);
    p->sq.tail = offsetof(struct map, sq_tail);
    p->sq.ring_mask = offsetof(struct map, sq_mask);
    p->sq.ring_entries = offsetof(struct map, sq_entries);
    p->sq.c = (uint32_t)(sizeof(struct map) + u->cq_entries * sizeof(struct mf__cqe));
    p->cq.head = offsetof(struct map, cq_head);
    p->cq.tail = offsetof(struct map, cq_tail);
    p->cq.ring_mask = offsetof(struct map, cq_mask);
    p->cq.ring_entries = offsetof(struct map, cq_entries);
    p->cq.b = sizeof(struct map);
}

static int call_setup(void *kernel, uint32_t entries, struct mf__uring_params *p)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc;

    if (entries == 0 || entries > MAX_ENTRIES || ((p->flags & MF__URING_SETUP_CQSIZE) && p->cq_entries < entries))
        return -EINVAL;
    if ((p->flags & MF__URING_SETUP_CQSIZE) && p->cq_entries > 2 * MAX_ENTRIES)
        return -EINVAL;
    u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->vk = vk;
    u->flags = p->flags;
    u->sq_entries = power_of_two(entries);
    u->cq_entries = power_of_two(p->flags & MF__URING_SETUP_CQSIZE ? p->cq_entries : 2 * entries);
    rc = make_maps(u);
    if (rc == 0 && pthread_cond_init(&u->posted, NULL) != 0)
        rc = -ENOMEM;
    if (rc < 0) {
        mf__region_free(&u->maps);
        mf__region_free(&u->sqes);
        free(u);
        return rc;
    }
    mf__vk_list_init(&u->overflow);
    u->open = true;
    tell_offsets(u, p);
    pthread_mutex_lock(&vk->lock);
    u->fd = vk->next_fd++;
    mf__vk_list_add(&u->all, &vk->urings);
    pthread_mutex_unlock(&vk->lock);
    return u->fd;
}

static int call_attach(void *kernel, int fd, struct mf__channel *device)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc = 0;

    pthread_mutex_lock(&vk->lock);
    u = vkernel_calls_find(vk, fd);
    if (!u) {
        rc = -EBADF;
    } else if (u->file) {
        rc = -EBUSY;
    } else {
        u->file = device->impl;
        mf__vk_chan_hold(u->file);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

static int call_map(void *kernel, int fd, size_t size, uint64_t offset, void **out)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int rc = -EINVAL;

    pthread_mutex_lock(&vk->lock);
    u = vkernel_calls_find(vk, fd);
    if (!u) {
        rc = -EBADF;
    } else if (offset == 0 && size <= u->maps.size && !u->mapped) {
        *out = u->mapped = u->maps.base;
        rc = 0;
    } else if (offset == MF__URING_OFF_SQES && size <= u->sqes.size && !u->mapped_sqes) {
        *out = u->mapped_sqes = u->sqes.base;
        rc = 0;
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

static void call_unmap(void *kernel, void *base, size_t size)
{
    struct mf_vkernel *vk = kernel;

    (void)size;
    pthread_mutex_lock(&vk->lock);
    for (struct mf__vk_link *l = vk->urings.next; l != &vk->urings; l = l->next) {
        struct mf__vk_uring *u = MF__VK_OF(l, struct mf__vk_uring, all);

        if (base == u->mapped) {
            u->mapped = NULL;
            mf__region_free(&u->maps);
        } else if (base == u->mapped_sqes) {
            u->mapped_sqes = NULL;
            mf__region_free(&u->sqes);
        } else {
            continue;
        }
        release_if_unused(u);
        break;
    }
    pthread_mutex_unlock(&vk->lock);
}

static void call_close(void *kernel, int fd)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;

    pthread_mutex_lock(&vk->lock);
    u = vkernel_calls_find(vk, fd);
    if (u) {
        u->open = false;
        release_if_unused(u);
    }
    pthread_mutex_unlock(&vk->lock);
}

static bool call_over(void *kernel, struct mf__channel *device)
{
    struct mf_vkernel *vk = kernel;
    bool over;

    (void)device;
    pthread_mutex_lock(&vk->lock);
    over = !vk->connected;
    pthread_mutex_unlock(&vk->lock);
    return over;
}

/* IORING_OP_MSG_RING, of data. */
static void message(struct mf__vk_uring *u, const struct mf__sqe *sqe)
{
    struct mf__vk_uring *to = vkernel_calls_find(u->vk, sqe->fd);
    int rc = mf__vk_planned_fault(u->vk, MF__URING_OP_MSG_RING);

    if (rc == 0 && (!to || to == u))
        rc = to ? -EINVAL : -EBADF;
    if (rc == 0)
        mf__vk_post_cqe(to, sqe->offset, (int32_t)sqe->len);
    if (rc < 0 || !(sqe->flags & MF__URING_SKIP_SUCCESS))
        mf__vk_post_cqe(u, sqe->user_data, rc);
}

static int consume(struct mf__vk_uring *u, uint32_t most)
{
    struct mf__vk_task *task = current_task();
    struct map *m = map_of(u);
    uint32_t head = atomic_load_explicit(&m->sq_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&m->sq_tail, memory_order_acquire);
    int n = 0;

    if (!task)
        return -EAGAIN;
    while (n < (int)most && head != tail) {
        uint32_t index = array_of(u)[head & (u->sq_entries - 1)];
        struct mf__sqe sqe;

        head++;
        if (index >= u->sq_entries)
            continue; /* dropped */
        memcpy(&sqe, u->mapped_sqes + index * sizeof(sqe), sizeof(sqe));
        if (sqe.opcode == MF__URING_OP_MSG_RING)
            message(u, &sqe);
        else
            mf__vk_command(u, &sqe, task);
        n++;
    }
    atomic_store_explicit(&m->sq_head, head, memory_order_release);
    return n;
}

/* Until so many completions are there that nobody had taken when it began. */
static void wait_for_completions(struct mf__vk_uring *u, uint32_t n)
{
    uint32_t target = atomic_load_explicit(&map_of(u)->cq_head, memory_order_acquire) + n;

    u->users++;
    flush_overflow(u);
    while (u->mapped && (int32_t)(u->tail - target) < 0) {
        pthread_cond_wait(&u->posted, &u->vk->lock);
        if (u->mapped)
            flush_overflow(u);
    }
    u->users--;
}

static int call_enter(void *kernel, int fd, uint32_t submit, uint32_t wait, uint32_t flags)
{
    struct mf_vkernel *vk = kernel;
    struct mf__vk_uring *u;
    int cancel, rc = 0;

    /* Who is cancelled while he waits with the virtual kernel's lock would take it along. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_mutex_lock(&vk->lock);
    u = vkernel_calls_find(vk, fd);
    if (!u)
        rc = -EBADF;
    else if (!u->mapped || !u->mapped_sqes)
        rc = -EFAULT;
    else if (submit)
        rc = consume(u, submit);
    if (rc >= 0 && (flags & MF__URING_ENTER_GETEVENTS)) {
        wait_for_completions(u, wait);
        release_if_unused(u);
    }
    pthread_mutex_unlock(&vk->lock);
    pthread_setcancelstate(cancel, NULL);
    return rc;
}

const struct mf__uring_sys mf__vk_calls = {
    .queues = call_queues,
    .setup = call_setup,
    .enter = call_enter,
    .attach = call_attach,
    .map = call_map,
    .unmap = call_unmap,
    .close = call_close,
    .over = call_over,
};

/* ---- for tests ---------------------------------------------------------------------------------- */

const struct mf__uring_sys *mf__vk_uring(struct mf_vkernel *vk)
{
    return vk->uring_sys;
}

void mf__vk_set_uring(struct mf_vkernel *vk, const struct mf__uring_sys *sys)
{
    vk->uring_sys = sys;
}

void mf__vk_set_cpu(struct mf_vkernel *vk, int32_t cpu)
{
    pthread_mutex_lock(&vk->lock);
    vk->cpu = cpu;
    pthread_mutex_unlock(&vk->lock);
}

void mf__vk_set_fault(struct mf_vkernel *vk, const struct mf__vk_fault *fault)
{
    pthread_mutex_lock(&vk->lock);
    vk->fault = *fault;
    pthread_mutex_unlock(&vk->lock);
}

static uint32_t vkernel_calls_length_of(const struct mf__vk_link *head)
{
    uint32_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

struct mf__vk_queue_info mf__vk_queue_look(struct mf_vkernel *vk, uint32_t queue)
{
    const struct mf__vk_queue *q = &vk->queues[queue];
    struct mf__vk_queue_info info;

    pthread_mutex_lock(&vk->lock);
    info = (struct mf__vk_queue_info){ .delivered = q->delivered,
                                       .idle = vkernel_calls_length_of(&q->idle),
                                       .busy = vkernel_calls_length_of(&q->busy),
                                       .pending = vkernel_calls_length_of(&q->pending),
                                       .most_busy = q->most_busy };
    pthread_mutex_unlock(&vk->lock);
    return info;
}

uint32_t mf__vk_urings(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vkernel_calls_length_of(&vk->urings);
    pthread_mutex_unlock(&vk->lock);
    return n;
}

bool mf__vk_uring_is_ready(struct mf_vkernel *vk)
{
    bool ready;

    pthread_mutex_lock(&vk->lock);
    ready = vk->uring_ready;
    pthread_mutex_unlock(&vk->lock);
    return ready;
}
#undef MAX_ENTRIES

/* ==== core/vkernel/client.c ==== */
/* SPDX-License-Identifier: MIT */
/* client.c - raw requests: any opcode, any bytes. */

static void raw_ask(struct mf__vk_ask *ask, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len)
{
    *ask = (struct mf__vk_ask){ .opcode = opcode, .node = node };
    if (in_len > 0)
        mf__vk_add(ask, in, in_len);
}

int mf_client_raw(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len, void *out,
                  uint64_t *out_len)
{
    struct mf__vk_ask ask;
    int rc;

    raw_ask(&ask, opcode, node, in, in_len);
    ask.out = out;
    /* Without a length the answer's body is of no interest, and no reason to fail. */
    ask.out_room = out_len ? *out_len : UINT64_MAX;
    if (!out_len)
        ask.out = NULL;
    rc = mf__vk_ask_raw(vk, &ask, false);
    if (out_len)
        *out_len = ask.out_len;
    return rc;
}

int mf_client_send(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                   uint64_t *unique)
{
    struct mf__vk_ask ask;

    raw_ask(&ask, opcode, node, in, in_len);
    return mf__vk_submit(vk, &ask, unique);
}

int mf_client_wait(struct mf_vkernel *vk, uint64_t unique, void *out, uint64_t *out_len)
{
    uint64_t len;
    int rc = mf__vk_collect(vk, unique, out_len ? out : NULL, out_len ? *out_len : UINT64_MAX, &len);

    if (out_len)
        *out_len = len;
    return rc;
}

int mf_client_interrupt(struct mf_vkernel *vk, uint64_t unique)
{
    int rc;

    pthread_mutex_lock(&vk->lock);
    rc = mf__vk_queue_interrupt(vk, unique);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf_client_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup)
{
    struct mf_forget one = { .node = node, .nlookup = nlookup };

    return nlookup == 0 ? 0 : mf__vk_forget(vk, &one, 1);
}

/* ==== core/vkernel/dir.c ==== */
/* SPDX-License-Identifier: MIT */
/* dir.c - the names in a directory. */


/* What programs' readdir(3) asks for at a time. */
#define BUFFER 32768u
#define OPEN_FLAGS ((uint32_t)(O_RDONLY | O_NONBLOCK | O_DIRECTORY) | MF__VK_LARGEFILE)

/* A directory that never ends is a mistake of the filesystem, not a reason to hang. */
#define MAX_READS 1000000u

struct listing {
    struct mf__vk_walk *w;
    char *names;
    uint64_t room;
    uint64_t used; /* also of what did not fit */
    uint32_t max_name;
    uint64_t cookie; /* of the last entry */
};

static bool is_dots(const char *name, uint32_t len)
{
    return name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'));
}

/* An entry's own header, or -EIO where it is malformed; *size is that of the whole record. */
static int check_dirent(const struct listing *l, const uint8_t *at, size_t fixed, size_t left, struct fuse_dirent *d,
                        size_t *size)
{
    const char *name = (const char *)at + fixed;

    memcpy(d, at + fixed - sizeof(*d), sizeof(*d));
    if (d->namelen == 0 || d->namelen > l->max_name)
        return -EIO;
    *size = mf__round_up(fixed + d->namelen, 8);
    if (*size > left)
        return -ENOSPC;
    return memchr(name, '/', d->namelen) || memchr(name, 0, d->namelen) ? -EIO : 0;
}

static void add_name(struct listing *l, const char *name, uint32_t len)
{
    if (is_dots(name, len))
        return;
    if (l->used <= l->room && l->room - l->used > len) {
        memcpy(l->names + l->used, name, len);
        l->names[l->used + len] = 0;
    }
    l->used += (uint64_t)len + 1;
}

/* What READDIRPLUS says about a name is a lookup. */
static int take_entry(struct listing *l, const uint8_t *at, const struct fuse_dirent *d, const char *name)
{
    struct fuse_entry_out e;

    memcpy(&e, at, sizeof(e));
    if (e.nodeid == 0 || is_dots(name, d->namelen))
        return 0;
    if (e.nodeid == FUSE_ROOT_ID || !mf__vk_attr_ok(&e.attr))
        return -EIO;
    return mf__vk_walk_remember(l->w, e.nodeid);
}

static int parse(struct listing *l, const uint8_t *at, size_t left, bool plus)
{
    size_t fixed = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;

    while (left >= fixed) {
        const char *name = (const char *)at + fixed;
        struct fuse_dirent d;
        size_t size;
        int rc = check_dirent(l, at, fixed, left, &d, &size);

        if (rc == -ENOSPC)
            break;
        if (rc == 0 && plus)
            rc = take_entry(l, at, &d, name);
        if (rc < 0)
            return rc;
        add_name(l, name, d.namelen);
        l->cookie = d.off;
        at += size;
        left -= size;
    }
    return 0;
}

static bool wants_plus(struct mf_vkernel *vk, uint64_t offset)
{
    uint64_t flags = mf__vk_flags(vk);

    /* Without a cache nothing ever says that more of it pays than the beginning. */
    return (flags & FUSE_DO_READDIRPLUS) && (!(flags & FUSE_READDIRPLUS_AUTO) || offset == 0);
}

/* 1: there may be more; 0: the end. */
static int read_some(struct listing *l, const struct mf__vk_file *f, uint8_t *buf, uint32_t size)
{
    struct mf_vkernel *vk = l->w->vk;
    bool plus = wants_plus(vk, l->cookie);
    struct mf__vk_ask ask = {
        .opcode = plus ? FUSE_READDIRPLUS : FUSE_READDIR, .node = f->node, .out = buf, .out_room = size
    };
    struct fuse_read_in in = { .fh = f->fh, .offset = l->cookie, .size = size, .flags = f->flags };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0 || ask.out_len == 0)
        return rc;
    rc = parse(l, buf, (size_t)ask.out_len, plus);
    if (rc < 0)
        return rc;
    /* A record that is cut off is asked for again; the same place again would go on for ever. */
    return l->cookie == in.offset ? -EIO : 1;
}

static int list_open(struct listing *l, const struct mf__vk_file *f)
{
    uint32_t most = mf__vk_max_read(l->w->vk);
    uint32_t size = most < BUFFER ? most : BUFFER;
    uint8_t *buf = malloc(size);
    uint32_t reads = 0;
    int rc = buf ? 1 : -ENOMEM;

    while (rc > 0)
        rc = reads++ < MAX_READS ? read_some(l, f, buf, size) : -EIO;
    free(buf);
    return rc;
}

static int list_node(struct listing *l, uint64_t node)
{
    struct mf__vk_file f;
    int rc = mf__vk_open(l->w->vk, node, OPEN_FLAGS, true, &f);
    int closed;

    if (rc < 0)
        return rc;
    rc = list_open(l, &f);
    closed = mf__vk_close(l->w->vk, &f);
    return rc < 0 ? rc : closed;
}

int mf_client_list(struct mf_vkernel *vk, const char *path, char *names, uint64_t *length)
{
    struct mf__vk_walk w;
    struct listing l = { .w = &w, .names = names, .room = *length };
    struct mf__vk_node node;
    int rc = mf__vk_walk_begin(&w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, true, &node);
    if (rc == 0 && !S_ISDIR(node.attr.mode))
        rc = -ENOTDIR;
    if (rc == 0) {
        l.max_name = mf__vk_max_name(vk);
        rc = list_node(&l, node.id);
    }
    if (rc == 0) {
        *length = l.used;
        rc = l.used > l.room ? -ERANGE : 0;
    }
    return mf__vk_walk_end(&w, rc);
}
#undef BUFFER
#undef MAX_READS
#undef OPEN_FLAGS

/* ==== core/vkernel/file.c ==== */
/* SPDX-License-Identifier: MIT */
/* file.c - open files, and whole files by path. */


/* What concerns only the open itself, and is not among an open file's flags. */
#define OPEN_ONLY ((uint32_t)(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC))

#define WRITE_FLAGS ((uint32_t)(O_WRONLY | O_CREAT | O_TRUNC) | MF__VK_LARGEFILE)

/* ---- open files --------------------------------------------------------------------------------- */

int mf__vk_release(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    struct mf__vk_ask ask = { .opcode = f->directory ? FUSE_RELEASEDIR : FUSE_RELEASE, .node = f->node };
    struct fuse_release_in in = { .fh = f->fh, .flags = f->flags };

    if (f->unopened)
        return 0;
    mf__vk_add(&ask, &in, sizeof(in));
    return mf__vk_ask(vk, &ask) == -ETIMEDOUT ? -ETIMEDOUT : 0;
}

static int flush(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    struct mf__vk_ask ask = { .opcode = FUSE_FLUSH, .node = f->node };
    struct fuse_flush_in in = { .fh = f->fh, .lock_owner = MF__VK_LOCK_OWNER };

    if (f->directory || ((f->open_flags & FOPEN_NOFLUSH) && !(mf__vk_flags(vk) & FUSE_WRITEBACK_CACHE)))
        return 0;
    mf__vk_add(&ask, &in, sizeof(in));
    return mf__vk_ask(vk, &ask);
}

int mf__vk_close(struct mf_vkernel *vk, const struct mf__vk_file *f)
{
    int flushed = flush(vk, f);
    int released = mf__vk_release(vk, f);

    return flushed < 0 ? flushed : released;
}

static void opened(struct mf__vk_file *f, uint64_t node, uint32_t flags, const struct fuse_open_out *out)
{
    f->node = node;
    f->fh = out->fh;
    f->flags = flags & ~OPEN_ONLY;
    f->open_flags = out->open_flags;
}

int mf__vk_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, bool directory, struct mf__vk_file *out)
{
    bool atomic = (mf__vk_flags(vk) & FUSE_ATOMIC_O_TRUNC) != 0;
    struct fuse_open_out answer;
    struct mf__vk_ask ask = {
        .opcode = directory ? FUSE_OPENDIR : FUSE_OPEN, .node = node, .out = &answer, .out_room = sizeof(answer)
    };
    struct fuse_open_in in = { .flags = flags & ~OPEN_ONLY };
    int rc;

    if ((flags & O_TRUNC) && atomic)
        in.flags |= O_TRUNC;
    if ((in.flags & O_TRUNC) && mf__vk_kills_priv(vk))
        in.open_flags |= FUSE_OPEN_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    *out = (struct mf__vk_file){ .directory = directory, .unopened = ask.latched };
    opened(out, node, flags, &answer);
    if (!(flags & O_TRUNC) || atomic)
        return 0;
    rc = mf__vk_setsize(vk, node, 0, true);
    if (rc < 0)
        mf__vk_close(vk, out);
    return rc;
}

int64_t mf__vk_read(struct mf_vkernel *vk, const struct mf__vk_file *f, void *buf, uint32_t size, uint64_t offset)
{
    struct mf__vk_ask ask = { .opcode = FUSE_READ, .node = f->node, .out = buf, .out_room = size };
    struct fuse_read_in in = { .fh = f->fh, .offset = offset, .size = size, .flags = f->flags };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    return rc < 0 ? rc : (int64_t)ask.out_len;
}

/* One WRITE. */
static int64_t write_piece(struct mf_vkernel *vk, const struct mf__vk_file *f, const void *buf, uint32_t size,
                           uint64_t offset)
{
    struct fuse_write_out out;
    struct mf__vk_ask ask = { .opcode = FUSE_WRITE, .node = f->node, .out = &out, .out_room = sizeof(out) };
    struct fuse_write_in in = { .fh = f->fh, .offset = offset, .size = size, .flags = f->flags };
    int rc;

    if (mf__vk_kills_priv(vk))
        in.write_flags |= FUSE_WRITE_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, buf, size);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return out.size > size ? -EIO : (int64_t)out.size;
}

int64_t mf__vk_pwrite(struct mf_vkernel *vk, const struct mf__vk_file *f, const void *buf, uint64_t length,
                      uint64_t offset)
{
    uint32_t most = mf__vk_max_write(vk);
    uint64_t done = 0;

    while (done < length) {
        uint32_t size = length - done < most ? (uint32_t)(length - done) : most;
        int64_t n = write_piece(vk, f, (const uint8_t *)buf + done, size, offset + done);

        if (n < 0)
            return done > 0 ? (int64_t)done : n;
        done += (uint64_t)n;
        if (n < size)
            return done > 0 ? (int64_t)done : -EIO;
    }
    return (int64_t)done;
}

/* ---- the public calls by node ------------------------------------------------------------------- */

int mf_client_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, uint64_t *fh)
{
    struct mf__vk_file f;
    int rc = mf__vk_ready(vk);

    if (rc == 0)
        rc = mf__vk_open(vk, node, flags | MF__VK_LARGEFILE, false, &f);
    if (rc == 0)
        *fh = f.fh;
    return rc;
}

int mf_client_release(struct mf_vkernel *vk, uint64_t node, uint64_t fh)
{
    /* A file from before the latch has a handle, one from after it has none; 0 is taken for the latter. */
    struct mf__vk_file f = {
        .node = node, .fh = fh, .flags = MF__VK_LARGEFILE, .unopened = fh == 0 && mf__vk_is_latched(vk, FUSE_OPEN)
    };

    return mf__vk_release(vk, &f);
}

int64_t mf_client_read(struct mf_vkernel *vk, uint64_t node, uint64_t fh, void *buf, uint64_t length, uint64_t offset)
{
    struct mf__vk_file f = { .node = node, .fh = fh, .flags = MF__VK_LARGEFILE };
    int rc = mf__vk_ready(vk);
    uint32_t most = mf__vk_max_read(vk);
    uint64_t done = 0;

    if (rc < 0)
        return rc;
    while (done < length) {
        uint32_t size = length - done < most ? (uint32_t)(length - done) : most;
        int64_t n = mf__vk_read(vk, &f, (uint8_t *)buf + done, size, offset + done);

        if (n < 0)
            return done > 0 ? (int64_t)done : n;
        done += (uint64_t)n;
        if (n < size)
            break;
    }
    return (int64_t)done;
}

int64_t mf_client_write(struct mf_vkernel *vk, uint64_t node, uint64_t fh, const void *buf, uint64_t length,
                        uint64_t offset)
{
    struct mf__vk_file f = { .node = node, .fh = fh, .flags = O_WRONLY | MF__VK_LARGEFILE };
    int rc = mf__vk_ready(vk);

    return rc < 0 ? rc : mf__vk_pwrite(vk, &f, buf, length, offset);
}

/* ---- whole files: reading ----------------------------------------------------------------------- */

/*
 * Through the page cache: whole pages, and nothing beyond the size that the attributes say, which is what
 * surprises filesystems that leave the size at 0. With FOPEN_DIRECT_IO until there is no more.
 */
static int read_all(struct mf_vkernel *vk, const struct mf__vk_file *f, uint64_t size, uint8_t *piece, uint8_t *buf,
                    uint64_t *length)
{
    bool direct = (f->open_flags & FOPEN_DIRECT_IO) != 0;
    uint32_t most = mf__vk_max_read(vk);
    uint64_t at = 0;

    while (direct || at < size) {
        uint64_t left = direct ? most : size - at;
        uint64_t want = mf__round_up(left < most ? left : most, MF__VK_PAGE);
        int64_t n = mf__vk_read(vk, f, piece, (uint32_t)want, at);

        if (n < 0)
            return (int)n;
        if ((uint64_t)n > left)
            n = (int64_t)left;
        if ((uint64_t)n > *length - at)
            return -EFBIG;
        if (n > 0)
            memcpy(buf + at, piece, (size_t)n);
        at += (uint64_t)n;
        if (n == 0 || (!direct && (uint64_t)n < want))
            break;
    }
    *length = at;
    return 0;
}

static int vkernel_file_read_open(struct mf_vkernel *vk, struct mf__vk_node *node, const struct mf__vk_file *f, void *buf,
                     uint64_t *length)
{
    uint8_t *piece = malloc(mf__vk_max_read(vk));
    int rc = piece ? 0 : -ENOMEM;

    if (rc == 0 && !(f->open_flags & FOPEN_DIRECT_IO))
        rc = mf__vk_refresh(vk, node, &f->fh);
    if (rc == 0)
        rc = read_all(vk, f, node->attr.size, piece, buf, length);
    free(piece);
    return rc;
}

int mf_client_read_file(struct mf_vkernel *vk, const char *path, void *buf, uint64_t *length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    struct mf__vk_file f;
    int rc = mf__vk_walk_begin(&w, vk);
    int closed;

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, true, &node);
    if (rc == 0 && !S_ISREG(node.attr.mode))
        rc = S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    if (rc == 0)
        rc = mf__vk_open(vk, node.id, O_RDONLY | MF__VK_LARGEFILE, false, &f);
    if (rc == 0) {
        rc = vkernel_file_read_open(vk, &node, &f, buf, length);
        closed = mf__vk_close(vk, &f);
        rc = rc < 0 ? rc : closed;
    }
    return mf__vk_walk_end(&w, rc);
}

/* ---- whole files: writing ----------------------------------------------------------------------- */

static int create_node(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, struct mf__vk_file *f)
{
    struct mf_vkernel *vk = w->vk;
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } answer;
    struct mf__vk_ask ask = { .opcode = FUSE_CREATE, .node = parent, .out = &answer, .out_room = sizeof(answer) };
    struct fuse_create_in in = { .flags = WRITE_FLAGS, .mode = mf__vk_masked(vk, mode), .umask = MF__VK_UMASK };
    int rc;

    if (mf__vk_kills_priv(vk))
        in.open_flags |= FUSE_OPEN_KILL_SUIDGID;
    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, name, strlen(name) + 1);
    mf__vk_add_ext(vk, &ask);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    if (answer.entry.nodeid == 0 || answer.entry.nodeid == FUSE_ROOT_ID || !S_ISREG(answer.entry.attr.mode) ||
        !mf__vk_attr_ok(&answer.entry.attr))
        return -EIO;
    *f = (struct mf__vk_file){ .unopened = false };
    opened(f, answer.entry.nodeid, WRITE_FLAGS, &answer.open);
    return mf__vk_walk_remember(w, f->node);
}

static int vkernel_file_create(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, struct mf__vk_file *f)
{
    struct fuse_entry_out e;
    int rc = create_node(w, parent, name, mode, f);

    if (rc != -ENOSYS)
        return rc;
    rc = mf__vk_mknod(w->vk, parent, name, mode, 0, &e);
    if (rc == 0)
        rc = mf__vk_walk_remember(w, e.nodeid);
    if (rc == 0)
        rc = mf__vk_open(w->vk, e.nodeid, WRITE_FLAGS, false, f);
    return rc;
}

/* Opened or created. A link gives *target instead: where to look next. */
static int open_named(struct mf__vk_walk *w, uint64_t parent, const char *name, uint32_t mode, char **target,
                      struct mf__vk_file *f)
{
    struct mf__vk_node node;
    int rc = mf__vk_walk_lookup(w, parent, name, &node);

    if (rc == -ENOENT)
        return vkernel_file_create(w, parent, name, mode, f);
    if (rc < 0)
        return rc;
    if (S_ISLNK(node.attr.mode))
        return mf__vk_walk_target(w, node.id, target);
    if (!S_ISREG(node.attr.mode))
        return S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    return mf__vk_open(w->vk, node.id, WRITE_FLAGS, false, f);
}

static int open_to_write(struct mf__vk_walk *w, const char *path, uint32_t mode, struct mf__vk_file *f)
{
    char *from = NULL;
    int rc;

    do {
        char *target = NULL;
        char *name = NULL;
        uint64_t parent;

        rc = mf__vk_walk_parent(w, path, -EISDIR, &parent, &name);
        if (rc == 0 && path[strlen(path) - 1] == '/')
            rc = -EISDIR;
        if (rc == 0)
            rc = open_named(w, parent, name, mode, &target, f);
        free(name);
        free(from);
        path = from = target;
    } while (from);
    return rc;
}

/* As programs do that write until all is written. */
static int write_all(struct mf_vkernel *vk, const struct mf__vk_file *f, const uint8_t *data, uint64_t length)
{
    uint64_t at = 0;

    while (at < length) {
        int64_t n = mf__vk_pwrite(vk, f, data + at, length - at, at);

        if (n < 0)
            return (int)n;
        at += (uint64_t)n;
    }
    return 0;
}

int mf_client_write_file(struct mf_vkernel *vk, const char *path, const void *data, uint64_t length, uint32_t mode)
{
    struct mf__vk_walk w;
    struct mf__vk_file f;
    int rc = mf__vk_walk_begin(&w, vk);
    int closed;

    if (rc == 0)
        rc = open_to_write(&w, path, S_IFREG | (mode & 07777), &f);
    if (rc == 0) {
        rc = write_all(vk, &f, data, length);
        closed = mf__vk_close(vk, &f);
        rc = rc < 0 ? rc : closed;
    }
    return mf__vk_walk_end(&w, rc);
}
#undef OPEN_ONLY
#undef WRITE_FLAGS

/* ==== core/vkernel/latch.c ==== */
/* SPDX-License-Identifier: MIT */
/* latch.c - what programs get for operations that the filesystem lacks. */


/* What poll(2) says of a file that has nothing to say. */
#define ALWAYS_READY (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

static bool latches(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS:
    case FUSE_SYNCFS:
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_BMAP:
    case FUSE_POLL:
    case FUSE_FALLOCATE:
    case FUSE_RENAME2:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_STATX: return true;
    default: return false;
    }
}

static int made_up(struct mf__vk_ask *ask, const void *answer, size_t len)
{
    ask->out_len = len;
    if (ask->out_room < len)
        return -ERANGE;
    memcpy(ask->out, answer, len);
    return 0;
}

/* The result for want of the operation. */
static int without(struct mf__vk_ask *ask)
{
    struct fuse_open_out open = { .open_flags = FOPEN_KEEP_CACHE };
    struct fuse_poll_out poll = { .revents = ALWAYS_READY };
    struct fuse_bmap_out bmap = { .block = 0 };

    switch (ask->opcode) {
    case FUSE_LINK: return -EPERM;
    case FUSE_OPENDIR: open.open_flags |= FOPEN_CACHE_DIR; return made_up(ask, &open, sizeof(open));
    case FUSE_OPEN: return made_up(ask, &open, sizeof(open));
    case FUSE_POLL: return made_up(ask, &poll, sizeof(poll));
    case FUSE_BMAP: return made_up(ask, &bmap, sizeof(bmap));
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_FLUSH:
    case FUSE_ACCESS:
    case FUSE_SYNCFS: return 0;
    case FUSE_RENAME2: return -EINVAL;
    case FUSE_SETXATTR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_TMPFILE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE: return -EOPNOTSUPP;
    case FUSE_IOCTL: return -ENOTTY;
    default: return -ENOSYS; /* where it is latched, there is another way to do it */
    }
}

static void latch(struct mf_vkernel *vk, uint32_t opcode)
{
    pthread_mutex_lock(&vk->lock);
    vk->latched |= 1ull << opcode;
    pthread_mutex_unlock(&vk->lock);
}

bool mf__vk_is_latched(struct mf_vkernel *vk, uint32_t opcode)
{
    bool is;

    pthread_mutex_lock(&vk->lock);
    is = opcode < 64 && (vk->latched >> opcode & 1) != 0;
    pthread_mutex_unlock(&vk->lock);
    return is;
}

int mf__vk_ask(struct mf_vkernel *vk, struct mf__vk_ask *ask)
{
    int rc;

    ask->out_len = 0;
    ask->latched = mf__vk_is_latched(vk, ask->opcode);
    if (ask->latched)
        return without(ask);
    rc = mf__vk_ask_raw(vk, ask, true);
    if (rc != -ENOSYS)
        return rc;
    ask->latched = latches(ask->opcode);
    if (ask->latched)
        latch(vk, ask->opcode);
    return without(ask);
}
#undef ALWAYS_READY

/* ==== core/vkernel/name.c ==== */
/* SPDX-License-Identifier: MIT */
/* name.c - calls that make, remove and rename names, and those that ask or change what a name stands for. */


#define RENAME_NOREPLACE_ 1u
#define RENAME_EXCHANGE_ 2u
#define RENAME_ALL 7u

/* A name to act on: the directory that it is, or is to be, in, and what stands there. */
struct place {
    struct mf__vk_walk w;
    uint64_t parent;
    char *name;
    bool exists;
    struct mf__vk_node node;
};

static int vkernel_name_find(struct place *p, struct mf_vkernel *vk, const char *path, int none)
{
    int rc;

    *p = (struct place){ .exists = false };
    rc = mf__vk_walk_begin(&p->w, vk);
    if (rc == 0)
        rc = mf__vk_walk_parent(&p->w, path, none, &p->parent, &p->name);
    if (rc < 0)
        return rc;
    rc = mf__vk_walk_lookup(&p->w, p->parent, p->name, &p->node);
    p->exists = rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

static int vkernel_name_leave(struct place *p, int rc)
{
    free(p->name);
    return mf__vk_walk_end(&p->w, rc);
}

/* ---- making ------------------------------------------------------------------------------------- */

static int find_free(struct place *p, struct mf_vkernel *vk, const char *path)
{
    int rc = vkernel_name_find(p, vk, path, -EEXIST);

    return rc == 0 && p->exists ? -EEXIST : rc;
}

/* Ask for a new node, and remember the reference that comes with it. */
static int vkernel_name_make(struct place *p, struct mf__vk_ask *ask, uint32_t mode)
{
    struct fuse_entry_out e;
    int rc = mf__vk_make(p->w.vk, ask, mode, &e);

    return rc < 0 ? rc : mf__vk_walk_remember(&p->w, e.nodeid);
}

int mf_client_mkdir(struct mf_vkernel *vk, const char *path, uint32_t mode)
{
    struct place p;
    int rc = find_free(&p, vk, path);

    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_MKDIR, .node = p.parent };
        struct fuse_mkdir_in in = { .mode = mf__vk_masked(vk, mode & 01777), .umask = MF__VK_UMASK };

        mf__vk_add(&ask, &in, sizeof(in));
        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        mf__vk_add_ext(vk, &ask);
        rc = vkernel_name_make(&p, &ask, S_IFDIR);
    }
    return vkernel_name_leave(&p, rc);
}

int mf_client_symlink(struct mf_vkernel *vk, const char *path, const char *target)
{
    struct place p;
    int rc = find_free(&p, vk, path);

    if (rc == 0 && (!target || !*target))
        rc = -ENOENT;
    if (rc == 0 && strlen(target) >= MF__VK_PAGE)
        rc = -ENAMETOOLONG;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_SYMLINK, .node = p.parent };

        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        mf__vk_add(&ask, target, strlen(target) + 1);
        mf__vk_add_ext(vk, &ask);
        rc = vkernel_name_make(&p, &ask, S_IFLNK);
    }
    return vkernel_name_leave(&p, rc);
}

int mf_client_mknod(struct mf_vkernel *vk, const char *path, uint32_t mode, uint32_t rdev)
{
    struct fuse_entry_out e;
    struct place p;
    int rc = find_free(&p, vk, path);

    if ((mode & S_IFMT) == 0)
        mode |= S_IFREG;
    if (rc == 0 && S_ISDIR(mode))
        rc = -EPERM;
    if (rc == 0)
        rc = mf__vk_mknod(vk, p.parent, p.name, mode, rdev, &e);
    if (rc == 0)
        rc = mf__vk_walk_remember(&p.w, e.nodeid);
    return vkernel_name_leave(&p, rc);
}

int mf_client_link(struct mf_vkernel *vk, const char *path, const char *newpath)
{
    struct mf__vk_node old;
    struct mf__vk_walk w;
    struct place p = { .exists = false };
    int rc = mf__vk_walk_begin(&w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(&w, path, false, &old);
    if (rc < 0)
        return mf__vk_walk_end(&w, rc);
    rc = find_free(&p, vk, newpath);
    if (rc == 0 && S_ISDIR(old.attr.mode))
        rc = -EPERM;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_LINK, .node = p.parent };
        struct fuse_link_in in = { .oldnodeid = old.id };

        mf__vk_add(&ask, &in, sizeof(in));
        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        rc = vkernel_name_make(&p, &ask, old.attr.mode);
    }
    rc = vkernel_name_leave(&p, rc);
    return mf__vk_walk_end(&w, rc);
}

/* ---- removing, renaming ------------------------------------------------------------------------- */

static int remove_name(struct mf_vkernel *vk, const char *path, bool directory)
{
    struct place p;
    int rc = vkernel_name_find(&p, vk, path, directory ? -EBUSY : -EISDIR);

    if (rc == 0 && !p.exists)
        rc = -ENOENT;
    if (rc == 0 && directory != (S_ISDIR(p.node.attr.mode) != 0))
        rc = directory ? -ENOTDIR : -EISDIR;
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = directory ? FUSE_RMDIR : FUSE_UNLINK, .node = p.parent };

        mf__vk_add(&ask, p.name, strlen(p.name) + 1);
        rc = mf__vk_ask(vk, &ask);
    }
    return vkernel_name_leave(&p, rc);
}

int mf_client_unlink(struct mf_vkernel *vk, const char *path)
{
    return remove_name(vk, path, false);
}

int mf_client_rmdir(struct mf_vkernel *vk, const char *path)
{
    return remove_name(vk, path, true);
}

/* What is decided before the filesystem is asked; 1: nothing is left to do. */
static int check_rename(const struct place *from, const struct place *to, uint32_t flags)
{
    bool from_dir = S_ISDIR(from->node.attr.mode);

    if (!from->exists)
        return -ENOENT;
    if ((flags & RENAME_EXCHANGE_) && !to->exists)
        return -ENOENT;
    if ((flags & RENAME_NOREPLACE_) && to->exists)
        return -EEXIST;
    if (!to->exists)
        return 0;
    if (from->node.id == to->node.id)
        return 1;
    if (!(flags & RENAME_EXCHANGE_) && from_dir != (S_ISDIR(to->node.attr.mode) != 0))
        return from_dir ? -ENOTDIR : -EISDIR;
    return 0;
}

static int rename_places(struct mf_vkernel *vk, const struct place *from, const struct place *to, uint32_t flags)
{
    struct mf__vk_ask ask = { .opcode = flags ? FUSE_RENAME2 : FUSE_RENAME, .node = from->parent };
    struct fuse_rename_in plain = { .newdir = to->parent };
    struct fuse_rename2_in with_flags = { .newdir = to->parent, .flags = flags };

    if (flags)
        mf__vk_add(&ask, &with_flags, sizeof(with_flags));
    else
        mf__vk_add(&ask, &plain, sizeof(plain));
    mf__vk_add(&ask, from->name, strlen(from->name) + 1);
    mf__vk_add(&ask, to->name, strlen(to->name) + 1);
    return mf__vk_ask(vk, &ask);
}

int mf_client_rename(struct mf_vkernel *vk, const char *path, const char *newpath, uint32_t flags)
{
    struct place from, to;
    int rc;

    if ((flags & ~RENAME_ALL) || ((flags & RENAME_EXCHANGE_) && flags != RENAME_EXCHANGE_))
        return -EINVAL;
    rc = vkernel_name_find(&from, vk, path, -EBUSY);
    if (rc < 0)
        return vkernel_name_leave(&from, rc);
    rc = vkernel_name_find(&to, vk, newpath, -EBUSY);
    if (rc == 0)
        rc = check_rename(&from, &to, flags);
    if (rc == 0)
        rc = rename_places(vk, &from, &to, flags);
    rc = vkernel_name_leave(&to, rc);
    return vkernel_name_leave(&from, rc > 0 ? 0 : rc);
}

/* ---- asking, changing --------------------------------------------------------------------------- */

/* Walk to the node; the walk must be ended whatever the result. */
static int vkernel_name_reach(struct mf__vk_walk *w, struct mf_vkernel *vk, const char *path, bool follow, struct mf__vk_node *node)
{
    int rc = mf__vk_walk_begin(w, vk);

    return rc < 0 ? rc : mf__vk_walk_to(w, path, follow, node);
}

int mf_client_stat(struct mf_vkernel *vk, const char *path, struct mf_attr *out)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = vkernel_name_reach(&w, vk, path, true, &node);

    if (rc == 0)
        rc = mf__vk_refresh(vk, &node, NULL);
    if (rc == 0 && out)
        *out = node.attr;
    return mf__vk_walk_end(&w, rc);
}

int mf_client_readlink(struct mf_vkernel *vk, const char *path, char *target, uint64_t *length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    uint64_t len = 0;
    int rc = vkernel_name_reach(&w, vk, path, false, &node);

    if (rc == 0 && !S_ISLNK(node.attr.mode))
        rc = -EINVAL;
    if (rc == 0) {
        rc = mf__vk_readlink(vk, node.id, target, *length, &len);
        if (rc == 0 && len < *length)
            target[len] = 0;
        if (rc == 0 || rc == -ERANGE)
            *length = len;
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_truncate(struct mf_vkernel *vk, const char *path, uint64_t length)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = vkernel_name_reach(&w, vk, path, true, &node);

    if (rc == 0 && length > INT64_MAX)
        rc = -EINVAL;
    if (rc == 0 && !S_ISREG(node.attr.mode))
        rc = S_ISDIR(node.attr.mode) ? -EISDIR : -EINVAL;
    if (rc == 0)
        rc = mf__vk_setsize(vk, node.id, length, false);
    return mf__vk_walk_end(&w, rc);
}

int mf_client_chmod(struct mf_vkernel *vk, const char *path, uint32_t mode)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = vkernel_name_reach(&w, vk, path, true, &node);

    if (rc == 0) {
        struct fuse_setattr_in in = { .valid = FATTR_MODE, .mode = (node.attr.mode & S_IFMT) | (mode & 07777) };

        rc = mf__vk_setattr(vk, node.id, &in);
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_access(struct mf_vkernel *vk, const char *path, uint32_t mask)
{
    struct mf__vk_node node;
    struct mf__vk_walk w;
    int rc = mask & ~7u ? -EINVAL : 0;

    if (rc < 0)
        return rc;
    rc = vkernel_name_reach(&w, vk, path, true, &node);
    if (rc == 0) {
        struct mf__vk_ask ask = { .opcode = FUSE_ACCESS, .node = node.id };
        struct fuse_access_in in = { .mask = mask };

        mf__vk_add(&ask, &in, sizeof(in));
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}

int mf_client_statfs(struct mf_vkernel *vk, struct mf_statfs *out)
{
    struct fuse_statfs_out got;
    struct mf__vk_ask ask = { .opcode = FUSE_STATFS, .node = MF_ROOT, .out = &got, .out_room = sizeof(got) };
    struct mf_statfs made = { .size = sizeof(made) };
    int rc = mf__vk_ask(vk, &ask);

    if (rc < 0)
        return rc;
    made.blocks = got.st.blocks;
    made.bfree = got.st.bfree;
    made.bavail = got.st.bavail;
    made.files = got.st.files;
    made.ffree = got.st.ffree;
    made.bsize = got.st.bsize;
    made.namelen = got.st.namelen;
    made.frsize = got.st.frsize;
    return mf__vk_copy_out(out, &made, sizeof(made));
}
#undef RENAME_ALL
#undef RENAME_EXCHANGE_
#undef RENAME_NOREPLACE_

/* ==== core/vkernel/node.c ==== */
/* SPDX-License-Identifier: MIT */
/* node.c - single requests by node, their answers checked as the kernel checks them. */


_Static_assert(sizeof(struct mf_attr) == sizeof(struct fuse_attr), "attributes are copied as they are");

bool mf__vk_attr_ok(const struct fuse_attr *attr)
{
    switch (attr->mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK: return attr->size <= INT64_MAX;
    default: return false;
    }
}

uint64_t mf__vk_ns(uint64_t seconds, uint32_t ns)
{
    if (ns >= MF_SECOND)
        ns = MF_SECOND - 1;
    if (seconds > (UINT64_MAX - ns) / MF_SECOND)
        return UINT64_MAX;
    return seconds * MF_SECOND + ns;
}

int mf__vk_copy_out(void *dst, const void *src, uint32_t size)
{
    uint32_t room;

    if (!dst)
        return -EINVAL;
    memcpy(&room, dst, sizeof(room));
    if (room == 0 || room > size)
        room = size;
    if (room < sizeof(room))
        return -EINVAL;
    memcpy(dst, src, room);
    memcpy(dst, &room, sizeof(room));
    return 0;
}

int mf__vk_check_name(struct mf_vkernel *vk, const char *name)
{
    if (!name || !*name || strchr(name, '/'))
        return -EINVAL;
    return strlen(name) > mf__vk_max_name(vk) ? -ENAMETOOLONG : 0;
}

/* ---- looking ------------------------------------------------------------------------------------ */

int mf__vk_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct fuse_entry_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_LOOKUP, .node = parent, .out = out, .out_room = sizeof(*out) };
    int rc = mf__vk_ready(vk);

    memset(out, 0, sizeof(*out));
    if (rc == 0)
        rc = mf__vk_check_name(vk, name);
    if (rc < 0)
        return rc;
    mf__vk_add(&ask, name, strlen(name) + 1);
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    if (out->nodeid == 0)
        return -ENOENT;
    return mf__vk_attr_ok(&out->attr) ? 0 : -EIO;
}

int mf__vk_getattr(struct mf_vkernel *vk, uint64_t node, const uint64_t *fh, struct fuse_attr_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_GETATTR, .node = node, .out = out, .out_room = sizeof(*out) };
    struct fuse_getattr_in in = { .getattr_flags = fh ? FUSE_GETATTR_FH : 0, .fh = fh ? *fh : 0 };
    int rc;

    mf__vk_add(&ask, &in, sizeof(in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return mf__vk_attr_ok(&out->attr) ? 0 : -EIO;
}

int mf__vk_refresh(struct mf_vkernel *vk, struct mf__vk_node *node, const uint64_t *fh)
{
    struct fuse_attr_out out;
    int rc;

    if (node->attr_ns > 0)
        return 0;
    rc = mf__vk_getattr(vk, node->id, fh, &out);
    if (rc < 0)
        return rc;
    /* A node's type never changes. */
    if ((out.attr.mode ^ node->attr.mode) & S_IFMT)
        return -EIO;
    memcpy(&node->attr, &out.attr, sizeof(node->attr));
    return 0;
}

int mf__vk_readlink(struct mf_vkernel *vk, uint64_t node, char *target, uint64_t room, uint64_t *len)
{
    struct mf__vk_ask ask = { .opcode = FUSE_READLINK, .node = node, .out = target, .out_room = room };
    int rc = mf__vk_ask(vk, &ask);

    *len = ask.out_len;
    return rc;
}

void mf__vk_node_of(struct mf__vk_node *node, const struct fuse_entry_out *e)
{
    node->id = e->nodeid;
    node->attr_ns = mf__vk_ns(e->attr_valid, e->attr_valid_nsec);
    memcpy(&node->attr, &e->attr, sizeof(node->attr));
}

/* ---- making ------------------------------------------------------------------------------------- */

uint32_t mf__vk_masked(struct mf_vkernel *vk, uint32_t mode)
{
    return mf__vk_flags(vk) & FUSE_DONT_MASK ? mode : mode & ~MF__VK_UMASK;
}

void mf__vk_add_ext(struct mf_vkernel *vk, struct mf__vk_ask *ask)
{
    /* What a kernel without a security module sends: a list of no contexts. */
    static const struct fuse_secctx_header none = { .size = sizeof(none), .nr_secctx = 0 };

    if (!(mf__vk_flags(vk) & FUSE_SECURITY_CTX))
        return;
    mf__vk_add(ask, &none, sizeof(none));
    ask->ext_len = sizeof(none);
}

int mf__vk_make(struct mf_vkernel *vk, struct mf__vk_ask *ask, uint32_t mode, struct fuse_entry_out *out)
{
    int rc;

    ask->out = out;
    ask->out_room = sizeof(*out);
    rc = mf__vk_ask(vk, ask);
    if (rc < 0)
        return rc;
    if (out->nodeid == 0 || out->nodeid == FUSE_ROOT_ID || !mf__vk_attr_ok(&out->attr) ||
        ((out->attr.mode ^ mode) & S_IFMT) != 0)
        return -EIO;
    return 0;
}

int mf__vk_mknod(struct mf_vkernel *vk, uint64_t parent, const char *name, uint32_t mode, uint32_t rdev,
                 struct fuse_entry_out *out)
{
    struct mf__vk_ask ask = { .opcode = FUSE_MKNOD, .node = parent };
    struct fuse_mknod_in in = { .mode = mf__vk_masked(vk, mode), .rdev = rdev, .umask = MF__VK_UMASK };

    mf__vk_add(&ask, &in, sizeof(in));
    mf__vk_add(&ask, name, strlen(name) + 1);
    mf__vk_add_ext(vk, &ask);
    return mf__vk_make(vk, &ask, mode, out);
}

/* ---- changing ----------------------------------------------------------------------------------- */

bool mf__vk_kills_priv(struct mf_vkernel *vk)
{
    return vk->opts.uid != 0 && (mf__vk_flags(vk) & FUSE_HANDLE_KILLPRIV_V2) != 0;
}

int mf__vk_setattr(struct mf_vkernel *vk, uint64_t node, const struct fuse_setattr_in *in)
{
    struct fuse_attr_out out;
    struct mf__vk_ask ask = { .opcode = FUSE_SETATTR, .node = node, .out = &out, .out_room = sizeof(out) };
    int rc;

    mf__vk_add(&ask, in, sizeof(*in));
    rc = mf__vk_ask(vk, &ask);
    if (rc < 0)
        return rc;
    return mf__vk_attr_ok(&out.attr) ? 0 : -EIO;
}

int mf__vk_setsize(struct mf_vkernel *vk, uint64_t node, uint64_t length, bool opening)
{
    struct fuse_setattr_in in = { .valid = FATTR_SIZE | FATTR_LOCKOWNER,
                                  .size = length,
                                  .lock_owner = MF__VK_LOCK_OWNER };

    /* open(2) with O_TRUNC changes the times even where the size stays. */
    if (opening)
        in.valid |= FATTR_MTIME | FATTR_MTIME_NOW;
    if (mf__vk_kills_priv(vk))
        in.valid |= FATTR_KILL_SUIDGID;
    return mf__vk_setattr(vk, node, &in);
}

/* ---- the public calls --------------------------------------------------------------------------- */

int mf_client_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct mf_entry *out)
{
    struct fuse_entry_out e;
    struct mf_entry made = { .size = sizeof(made) };
    int rc = mf__vk_lookup(vk, parent, name, &e);
    int copied;

    made.node = e.nodeid;
    made.generation = e.generation;
    made.entry_timeout_ns = mf__vk_ns(e.entry_valid, e.entry_valid_nsec);
    made.attr_timeout_ns = mf__vk_ns(e.attr_valid, e.attr_valid_nsec);
    memcpy(&made.attr, &e.attr, sizeof(made.attr));
    copied = out ? mf__vk_copy_out(out, &made, sizeof(made)) : 0;
    return rc < 0 ? rc : copied;
}

int mf_client_getattr(struct mf_vkernel *vk, uint64_t node, struct mf_attr *out)
{
    struct fuse_attr_out got;
    int rc = mf__vk_getattr(vk, node, NULL, &got);

    if (rc == 0 && out)
        memcpy(out, &got.attr, sizeof(*out));
    return rc;
}

/* ==== core/vkernel/notify.c ==== */
/* SPDX-License-Identifier: MIT */
/* notify.c - what a write may be: notifications. Their sizes are checked, and they are counted. */


#define HEADER sizeof(struct fuse_out_header)

/* What is exact or, where more follows, fixed; and the kernel's minor that knows the code. */
static const struct {
    uint32_t since;
    uint32_t size;
} codes[MF__VK_NOTIFY_CODES] = {
    [FUSE_NOTIFY_POLL] = { 11, sizeof(struct fuse_notify_poll_wakeup_out) },
    [FUSE_NOTIFY_INVAL_INODE] = { 12, sizeof(struct fuse_notify_inval_inode_out) },
    [FUSE_NOTIFY_INVAL_ENTRY] = { 12, sizeof(struct fuse_notify_inval_entry_out) },
    [FUSE_NOTIFY_STORE] = { 15, sizeof(struct fuse_notify_store_out) },
    [FUSE_NOTIFY_RETRIEVE] = { 15, sizeof(struct fuse_notify_retrieve_out) },
    [FUSE_NOTIFY_DELETE] = { 18, sizeof(struct fuse_notify_delete_out) },
    [FUSE_NOTIFY_RESEND] = { 40, 0 },
    [FUSE_NOTIFY_INC_EPOCH] = { 44, 0 },
    [FUSE_NOTIFY_PRUNE] = { 45, sizeof(struct fuse_notify_prune_out) },
};

static int vkernel_notify_check_name(const struct mf_vkernel *vk, uint64_t fixed, uint32_t name_len, uint64_t body)
{
    if (name_len > (vk->max_pages > 1 ? FUSE_NAME_MAX : 1024u))
        return -ENAMETOOLONG;
    return body == fixed + name_len + 1 ? 0 : -EINVAL;
}

/* The part that follows the fixed one. */
static int check_rest(const struct mf_vkernel *vk, uint32_t code, const uint8_t *fixed, uint64_t body)
{
    struct fuse_notify_inval_entry_out entry;
    struct fuse_notify_delete_out gone;
    struct fuse_notify_store_out store;
    struct fuse_notify_prune_out prune;

    switch (code) {
    case FUSE_NOTIFY_INVAL_ENTRY:
        memcpy(&entry, fixed, sizeof(entry));
        return vkernel_notify_check_name(vk, sizeof(entry), entry.namelen, body);
    case FUSE_NOTIFY_DELETE:
        memcpy(&gone, fixed, sizeof(gone));
        return vkernel_notify_check_name(vk, sizeof(gone), gone.namelen, body);
    case FUSE_NOTIFY_STORE:
        memcpy(&store, fixed, sizeof(store));
        return body == sizeof(store) + (uint64_t)store.size ? 0 : -EINVAL;
    case FUSE_NOTIFY_PRUNE:
        memcpy(&prune, fixed, sizeof(prune));
        return body == sizeof(prune) + 8 * (uint64_t)prune.count ? 0 : -EINVAL;
    default: return body == codes[code].size ? 0 : -EINVAL;
    }
}

/* Nothing is cached here, so what comes back is empty. */
static int retrieve(struct mf_vkernel *vk, const uint8_t *fixed)
{
    struct fuse_notify_retrieve_out out;
    struct fuse_notify_retrieve_in in = { .offset = 0 };
    struct iovec part = { .iov_base = &in, .iov_len = sizeof(in) };
    struct mf__vk_req *req;

    memcpy(&out, fixed, sizeof(out));
    in.offset = out.offset;
    req = mf__vk_req_new(NULL, FUSE_NOTIFY_REPLY, out.nodeid, &part, 1, 0);
    if (!req)
        return -ENOMEM;
    mf__vk_header(req->msg)->unique = out.notify_unique;
    mf__vk_enqueue(vk, req);
    return 0;
}

/* Everything in hand goes back to the head of the queue, in its order, marked as sent again. */
static void resend(struct mf_vkernel *vk)
{
    struct mf__vk_link *at = vk->pending.next;
    struct mf__vk_link *l;

    for (l = vk->chans.next; l != &vk->chans; l = l->next) {
        struct mf__vk_link *held = &MF__VK_OF(l, struct mf__vk_chan, all)->held;

        while (!mf__vk_list_empty(held)) {
            struct mf__vk_req *req = MF__VK_OF(held->next, struct mf__vk_req, at);

            mf__vk_header(req->msg)->unique |= FUSE_UNIQUE_RESEND;
            mf__vk_list_del(&req->at);
            mf__vk_list_add(&req->at, at);
            req->where = MF__VK_PENDING;
            req->holder = NULL;
            mf__vk_wake_reader(vk);
        }
    }
}

static int keep(struct mf_vkernel *vk, const struct iovec *iov, int n, size_t len)
{
    uint8_t *copy = malloc(len);

    if (!copy)
        return -ENOMEM;
    free(vk->notify);
    vk->notify = copy;
    vk->notify_len = mf__vk_gather(copy, 0, len, iov, n);
    return 0;
}

int mf__vk_notify(struct mf_vkernel *vk, int32_t code, const struct iovec *iov, int n)
{
    uint8_t fixed[32] = { 0 };
    size_t len = mf__vk_iov_len(iov, n);
    int rc;

    if (code <= 0 || code >= (int32_t)MF__VK_NOTIFY_CODES || codes[code].since == 0 ||
        vk->opts.minor < codes[code].since)
        return -EINVAL;
    if (mf__vk_gather(fixed, HEADER, codes[code].size, iov, n) < codes[code].size)
        return -EINVAL;
    rc = check_rest(vk, (uint32_t)code, fixed, len - HEADER);
    if (rc < 0)
        return rc;
    if (!vk->connected)
        return vk->unmounted ? -ENOENT : 0; /* an abort leaves the mount, an unmount nothing */
    rc = keep(vk, iov, n, len);
    if (rc == 0 && code == FUSE_NOTIFY_RETRIEVE)
        rc = retrieve(vk, fixed);
    if (rc < 0)
        return rc;
    if (code == FUSE_NOTIFY_RESEND)
        resend(vk);
    vk->notified[code]++;
    return 0;
}
#undef HEADER

/* ==== core/vkernel/queue.c ==== */
/* SPDX-License-Identifier: MIT */
/* queue.c - what is queued, and what a read of a channel delivers. Nothing here waits. */


/* With both waiting, so many reads take forgets, then so many take requests. */
#define FORGET_TURN 16u
#define REQUEST_TURN 8u

#define HEADER sizeof(struct fuse_in_header)

/* ---- requests ----------------------------------------------------------------------------------- */

/* A 32-bit field of a request's structure; 0 where the request is too short to have it. */
static uint32_t field(const uint8_t *body, size_t len, size_t offset)
{
    uint32_t value = 0;

    if (len >= offset + sizeof(value))
        memcpy(&value, body + offset, sizeof(value));
    return value;
}

static void exactly(uint32_t size, uint32_t *least, uint32_t *most)
{
    *least = *most = size;
}

void mf__vk_reply_size(uint32_t opcode, const void *body, size_t len, uint32_t *least, uint32_t *most)
{
    uint32_t size;

    exactly(0, least, most);
    switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_LINK: exactly(128, least, most); break;
    case FUSE_GETATTR:
    case FUSE_SETATTR: exactly(104, least, most); break;
    case FUSE_OPEN:
    case FUSE_OPENDIR: exactly(16, least, most); break;
    case FUSE_CREATE:
    case FUSE_TMPFILE: exactly(144, least, most); break;
    case FUSE_STATFS: exactly(80, least, most); break;
    case FUSE_GETLK: exactly(24, least, most); break;
    case FUSE_STATX: exactly(288, least, most); break;
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64:
    case FUSE_BMAP:
    case FUSE_POLL:
    case FUSE_LSEEK: exactly(8, least, most); break;
    case FUSE_INIT: *most = 64; break;
    case FUSE_READLINK: *most = MF__VK_PAGE - 1; break;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: *most = field(body, len, offsetof(struct fuse_read_in, size)); break;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        size = field(body, len, offsetof(struct fuse_getxattr_in, size));
        if (size == 0)
            exactly(8, least, most);
        else
            *most = size;
        break;
    case FUSE_IOCTL:
        *least = 16;
        size = field(body, len, offsetof(struct fuse_ioctl_in, out_size));
        *most = size > UINT32_MAX - 16 ? UINT32_MAX : 16 + size;
        break;
    default:
        /* Whoever asks what no kernel asks must look at the answer himself. */
        if (!mf__opcode(opcode)->known)
            *most = UINT32_MAX;
        break;
    }
}

static bool is_silent(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_NOTIFY_REPLY ||
           opcode == FUSE_INTERRUPT;
}

/* Requests that the kernel sends for itself carry no credentials. */
static bool is_kernels_own(uint32_t opcode)
{
    return is_silent(opcode) || opcode == FUSE_INIT || opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR ||
           opcode == FUSE_DESTROY;
}

static void fill_header(struct mf__vk_req *req, const struct mf_vkernel_opts *as, uint64_t node, uint32_t ext_len)
{
    struct fuse_in_header *hdr = mf__vk_header(req->msg);

    memset(hdr, 0, sizeof(*hdr));
    hdr->len = req->len;
    hdr->opcode = req->opcode;
    hdr->nodeid = node;
    hdr->total_extlen = (uint16_t)(ext_len / 8);
    if (as && !is_kernels_own(req->opcode)) {
        hdr->uid = as->uid;
        hdr->gid = as->gid;
        hdr->pid = as->pid;
    }
}

static bool init_done_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    bool ok;

    if (pthread_condattr_init(&attr) != 0)
        return false;
    ok = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(cond, &attr) == 0;
    pthread_condattr_destroy(&attr);
    return ok;
}

struct mf__vk_req *mf__vk_req_new(const struct mf_vkernel_opts *as, uint32_t opcode, uint64_t node,
                                  const struct iovec *parts, uint32_t n, uint32_t ext_len)
{
    size_t body = mf__vk_iov_len(parts, (int)n);
    struct mf__vk_req *req;

    if (body > INT32_MAX)
        return NULL;
    req = calloc(1, sizeof(*req) + HEADER + body);
    if (!req)
        return NULL;
    if (!init_done_cond(&req->done)) {
        free(req);
        return NULL;
    }
    mf__vk_list_init(&req->at);
    mf__vk_list_init(&req->intr);
    mf__vk_list_init(&req->known);
    req->opcode = opcode;
    req->len = (uint32_t)(HEADER + body);
    req->silent = is_silent(opcode);
    fill_header(req, as, node, ext_len);
    mf__vk_gather(req->msg + HEADER, 0, body, parts, (int)n);
    mf__vk_reply_size(opcode, req->msg + HEADER, body, &req->out_least, &req->out_most);
    return req;
}

void mf__vk_req_free(struct mf__vk_req *req)
{
    pthread_cond_destroy(&req->done);
    free(req->out);
    free(req);
}

static void forget_req(struct mf__vk_req *req)
{
    mf__vk_list_del(&req->at);
    mf__vk_list_del(&req->intr);
    mf__vk_list_del(&req->known);
    mf__vk_req_free(req);
}

struct mf__vk_req *mf__vk_known(struct mf_vkernel *vk, uint64_t id)
{
    struct mf__vk_link *l;

    for (l = vk->known.next; l != &vk->known; l = l->next) {
        struct mf__vk_req *req = MF__VK_OF(l, struct mf__vk_req, known);

        if (req->id == id)
            return req;
    }
    return NULL;
}

void mf__vk_finish(struct mf_vkernel *vk, struct mf__vk_req *req, int error)
{
    mf__vk_list_del(&req->at);
    mf__vk_list_del(&req->intr);
    req->where = MF__VK_NOWHERE;
    req->holder = NULL;
    if (req->entry)
        req->entry->req = NULL;
    req->entry = NULL;
    req->answered = true;
    req->error = error;
    if (req->opcode == FUSE_INIT && !vk->initialized) {
        vk->initialized = true;
        vk->refused = error != 0;
        mf__vk_wake_clients(vk);
    }
    if (req->owned)
        pthread_cond_broadcast(&req->done);
    else
        forget_req(req);
}

void mf__vk_disown(struct mf__vk_req *req)
{
    req->owned = false;
    /* What was read must be answered to be gone; what was not is taken back. */
    if (req->where != MF__VK_HELD)
        forget_req(req);
}

/* ---- the queue ---------------------------------------------------------------------------------- */

static uint64_t next_id(struct mf_vkernel *vk)
{
    vk->last_id += FUSE_REQ_ID_STEP;
    return vk->last_id;
}

void mf__vk_enqueue(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    req->id = next_id(vk);
    /* The answer to a RETRIEVE has the id that the filesystem chose. */
    if (mf__vk_header(req->msg)->unique == 0)
        mf__vk_header(req->msg)->unique = req->id;
    req->where = MF__VK_PENDING;
    mf__vk_list_add(&req->known, &vk->known);
    if (mf__vk_takes_ring(vk, req)) {
        mf__vk_queue_on_cpu(vk, req);
        return;
    }
    mf__vk_list_add(&req->at, &vk->pending);
    mf__vk_wake_reader(vk);
}

int mf__vk_post(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *body, size_t len)
{
    struct iovec part = { .iov_base = (void *)(uintptr_t)body, .iov_len = len };
    struct mf__vk_req *req = mf__vk_req_new(&vk->opts, opcode, node, &part, 1, 0);

    if (!req)
        return -ENOMEM;
    mf__vk_enqueue(vk, req);
    return 0;
}

int mf__vk_queue_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup)
{
    struct mf__vk_forget *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->one = (struct fuse_forget_one){ .nodeid = node, .nlookup = nlookup };
    mf__vk_list_add(&f->at, &vk->forgets);
    mf__vk_wake_reader(vk);
    return 0;
}

static void queue_intr(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    if (vk->no_interrupt || !mf__vk_list_empty(&req->intr))
        return;
    mf__vk_list_add(&req->intr, &vk->interrupts);
    mf__vk_wake_reader(vk);
}

int mf__vk_queue_interrupt(struct mf_vkernel *vk, uint64_t id)
{
    struct mf__vk_req *req = mf__vk_known(vk, id);

    if (!req || req->where == MF__VK_NOWHERE || req->silent)
        return -ENOENT;
    if (req->interrupted)
        return 0;
    /* What nobody has read yet is remembered: the INTERRUPT follows its request. */
    req->interrupted = true;
    if (req->where == MF__VK_HELD)
        queue_intr(vk, req);
    return 0;
}

static uint64_t list_count(const struct mf__vk_link *head)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

bool mf__vk_anything(const struct mf_vkernel *vk)
{
    return !mf__vk_list_empty(&vk->pending) || !mf__vk_list_empty(&vk->interrupts) || !mf__vk_list_empty(&vk->forgets);
}

uint64_t mf__vk_count(const struct mf_vkernel *vk)
{
    uint64_t n = list_count(&vk->pending) + list_count(&vk->interrupts) + list_count(&vk->forgets);
    const struct mf__vk_link *l;

    for (l = vk->chans.next; l != &vk->chans; l = l->next)
        n += list_count(&MF__VK_OF(l, struct mf__vk_chan, all)->held);
    return n + mf__vk_ring_count(vk);
}

/* ---- reading ------------------------------------------------------------------------------------ */

static size_t deliver_interrupt(struct mf_vkernel *vk, uint8_t *buf)
{
    struct mf__vk_req *req = MF__VK_OF(vk->interrupts.next, struct mf__vk_req, intr);
    uint64_t target = mf__vk_header(req->msg)->unique;
    struct fuse_in_header hdr = { .len = HEADER + sizeof(struct fuse_interrupt_in),
                                  .opcode = FUSE_INTERRUPT,
                                  .unique = target | FUSE_INT_REQ_BIT };
    struct fuse_interrupt_in in = { .unique = target };

    mf__vk_list_del(&req->intr);
    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + sizeof(hdr), &in, sizeof(in));
    return hdr.len;
}

static struct fuse_forget_one take_forget(struct mf_vkernel *vk)
{
    struct mf__vk_forget *f = MF__VK_OF(vk->forgets.next, struct mf__vk_forget, at);
    struct fuse_forget_one one = f->one;

    mf__vk_list_del(&f->at);
    free(f);
    return one;
}

static size_t deliver_forget(struct mf_vkernel *vk, uint8_t *buf)
{
    struct fuse_forget_one one = take_forget(vk);
    struct fuse_forget_in in = { .nlookup = one.nlookup };
    struct fuse_in_header hdr = {
        .len = HEADER + sizeof(in), .opcode = FUSE_FORGET, .unique = next_id(vk), .nodeid = one.nodeid
    };

    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + sizeof(hdr), &in, sizeof(in));
    return hdr.len;
}

static size_t deliver_forgets(struct mf_vkernel *vk, uint8_t *buf, size_t size)
{
    struct fuse_batch_forget_in in = { .count = 0 };
    struct fuse_in_header hdr = { .opcode = FUSE_BATCH_FORGET, .unique = next_id(vk) };
    size_t room = (size - HEADER - sizeof(in)) / sizeof(struct fuse_forget_one);
    uint8_t *at = buf + HEADER + sizeof(in);

    while (in.count < room && !mf__vk_list_empty(&vk->forgets)) {
        struct fuse_forget_one one = take_forget(vk);

        memcpy(at, &one, sizeof(one));
        at += sizeof(one);
        in.count++;
    }
    hdr.len = (uint32_t)(at - buf);
    memcpy(buf, &hdr, sizeof(hdr));
    memcpy(buf + HEADER, &in, sizeof(in));
    return hdr.len;
}

static bool forgets_are_next(struct mf_vkernel *vk)
{
    if (mf__vk_list_empty(&vk->forgets))
        return false;
    if (mf__vk_list_empty(&vk->pending))
        return true;
    if (vk->forget_turn > 0) {
        vk->forget_turn--;
        return true;
    }
    if (++vk->request_turn >= REQUEST_TURN) {
        vk->request_turn = 0;
        vk->forget_turn = FORGET_TURN;
    }
    return false;
}

static void deliver_request(struct mf__vk_chan *ch, struct mf__vk_req *req, uint8_t *buf)
{
    memcpy(buf, req->msg, req->len);
    mf__vk_list_del(&req->at);
    if (req->silent) {
        mf__vk_finish(ch->vk, req, 0);
        return;
    }
    req->where = MF__VK_HELD;
    req->holder = ch;
    mf__vk_list_add(&req->at, &ch->held);
    if (req->interrupted)
        queue_intr(ch->vk, req);
}

/* The first request that fits; one that does not fails at its caller. */
static size_t deliver_pending(struct mf__vk_chan *ch, uint8_t *buf, size_t size)
{
    struct mf_vkernel *vk = ch->vk;

    while (!mf__vk_list_empty(&vk->pending)) {
        struct mf__vk_req *req = MF__VK_OF(vk->pending.next, struct mf__vk_req, at);
        size_t len = req->len;

        if (len <= size) {
            deliver_request(ch, req, buf);
            return len;
        }
        mf__vk_finish(vk, req, req->opcode == FUSE_SETXATTR ? -E2BIG : -EIO);
    }
    return 0;
}

int mf__vk_take(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len)
{
    struct mf_vkernel *vk = ch->vk;
    size_t least = HEADER + sizeof(struct fuse_write_in) + vk->max_write;

    if (size < FUSE_MIN_READ_BUFFER || size < least)
        return -EINVAL;
    if (!vk->connected)
        return vk->aborted ? -ECONNABORTED : -ENODEV;
    if (!mf__vk_list_empty(&vk->interrupts))
        *len = deliver_interrupt(vk, buf);
    else if (!forgets_are_next(vk))
        *len = deliver_pending(ch, buf, size);
    else if (vk->minor < 16 || vk->forgets.next->next == &vk->forgets)
        *len = deliver_forget(vk, buf);
    else
        *len = deliver_forgets(vk, buf, size);
    if (*len == 0)
        return mf__vk_anything(vk) ? mf__vk_take(ch, buf, size, len) : -EAGAIN;
    ch->reads++;
    return 0;
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void fail_all(struct mf_vkernel *vk, struct mf__vk_link *head)
{
    while (!mf__vk_list_empty(head))
        mf__vk_finish(vk, MF__VK_OF(head->next, struct mf__vk_req, at), -ECONNABORTED);
}

void mf__vk_disconnect(struct mf_vkernel *vk)
{
    struct mf__vk_link *l;

    if (!vk->connected)
        return;
    vk->connected = false;
    fail_all(vk, &vk->pending);
    for (l = vk->chans.next; l != &vk->chans; l = l->next)
        fail_all(vk, &MF__VK_OF(l, struct mf__vk_chan, all)->held);
    mf__vk_uring_disconnect(vk);
    while (!mf__vk_list_empty(&vk->forgets))
        take_forget(vk);
    mf__vk_wake_readers(vk);
    mf__vk_wake_clients(vk);
}
#undef FORGET_TURN
#undef HEADER
#undef REQUEST_TURN

/* ==== core/vkernel/reply.c ==== */
/* SPDX-License-Identifier: MIT */
/* reply.c - what a write may be: answers to requests and to INTERRUPTs. Nothing here waits. */


#define HEADER sizeof(struct fuse_out_header)
#define WORST_ERROR 512 /* the first that is none */

size_t mf__vk_iov_len(const struct iovec *iov, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > SIZE_MAX - sum)
            return SIZE_MAX;
        sum += iov[i].iov_len;
    }
    return sum;
}

size_t mf__vk_gather(void *dst, size_t skip, size_t len, const struct iovec *iov, int n)
{
    uint8_t *at = dst;

    for (int i = 0; i < n && len > 0; i++) {
        const uint8_t *from = iov[i].iov_base;
        size_t part = iov[i].iov_len;

        if (part <= skip) {
            skip -= part;
            continue;
        }
        part -= skip;
        if (part > len)
            part = len;
        memcpy(at, from + skip, part);
        skip = 0;
        at += part;
        len -= part;
    }
    return (size_t)(at - (uint8_t *)dst);
}

/* ---- INIT --------------------------------------------------------------------------------------- */

/* The terms become those of the answer; false: no such terms. */
static bool adopt(struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    struct fuse_init_out out = { .major = 0 };

    if (req->out_len > 0)
        memcpy(&out, req->out, req->out_len);
    if (out.major != FUSE_KERNEL_VERSION)
        return false;
    vk->minor = out.minor;
    vk->flags = out.flags;
    if (out.flags & vk->opts.flags & FUSE_INIT_EXT)
        vk->flags |= (uint64_t)out.flags2 << 32;
    vk->flags &= vk->opts.flags;
    vk->max_write = out.minor < 5 || out.max_write < MF__VK_PAGE ? MF__VK_PAGE : out.max_write;
    if (vk->flags & FUSE_MAX_PAGES) {
        vk->max_pages = out.max_pages < MF__VK_MAX_PAGES ? out.max_pages : MF__VK_MAX_PAGES;
        if (vk->max_pages == 0)
            vk->max_pages = 1;
    }
    mf__vk_uring_agreed(vk);
    return true;
}

/* ---- answers that nobody collects --------------------------------------------------------------- */

/* The program is gone, but what it was given must be given back, or the filesystem keeps it for ever. */
static void give_back(struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    bool opens = req->opcode == FUSE_OPEN || req->opcode == FUSE_OPENDIR;
    bool creates = req->opcode == FUSE_CREATE || req->opcode == FUSE_TMPFILE;
    bool enters = creates || req->out_least == sizeof(struct fuse_entry_out);
    uint64_t node = mf__vk_header(req->msg)->nodeid;
    struct fuse_release_in in = { .fh = 0 };
    struct fuse_entry_out entry;
    struct fuse_open_out open;

    if (enters) {
        memcpy(&entry, req->out, sizeof(entry));
        node = entry.nodeid;
    }
    if (creates || opens) {
        memcpy(&open, req->out + (creates ? sizeof(entry) : 0), sizeof(open));
        in.fh = open.fh;
        mf__vk_post(vk, req->opcode == FUSE_OPENDIR ? FUSE_RELEASEDIR : FUSE_RELEASE, node, &in, sizeof(in));
    }
    if (enters && node != 0)
        mf__vk_queue_forget(vk, node, 1);
}

/* ---- writing ------------------------------------------------------------------------------------ */

static struct mf__vk_req *held(struct mf__vk_chan *ch, uint64_t unique)
{
    struct mf__vk_link *l;

    for (l = ch->held.next; l != &ch->held; l = l->next) {
        struct mf__vk_req *req = MF__VK_OF(l, struct mf__vk_req, at);

        if (mf__vk_header(req->msg)->unique == unique)
            return req;
    }
    return NULL;
}

static int answer_interrupt(struct mf__vk_chan *ch, struct mf__vk_req *req, size_t len, int error)
{
    struct mf_vkernel *vk = ch->vk;

    if (len != HEADER || (error == -EAGAIN && !req->interrupted)) {
        vk->bad_replies++;
        return -EINVAL;
    }
    if (error == -ENOSYS) {
        vk->no_interrupt = true;
    } else if (error == -EAGAIN && !vk->no_interrupt && mf__vk_list_empty(&req->intr)) {
        mf__vk_list_add(&req->intr, &vk->interrupts);
        mf__vk_wake_reader(vk);
    }
    return 0;
}

/* Takes the body over into the request. 0, or the error that its writer gets; *error is what the caller gets. */
static int take_body(struct mf__vk_req *req, const struct iovec *iov, int n, size_t body, int *error)
{
    if (*error ? body != 0 : body < req->out_least || body > req->out_most) {
        *error = -EIO;
        return -EINVAL;
    }
    if (body == 0)
        return 0;
    req->out = malloc(body);
    if (!req->out) {
        *error = -ENOMEM;
        return -ENOMEM;
    }
    req->out_len = (uint32_t)mf__vk_gather(req->out, HEADER, body, iov, n);
    return 0;
}

int mf__vk_answer(struct mf_vkernel *vk, struct mf__vk_req *req, const struct iovec *iov, int n, size_t body, int error)
{
    int rc = take_body(req, iov, n, body, &error);

    if (rc == -EINVAL)
        vk->bad_replies++;
    if (error == 0 && req->opcode == FUSE_INIT && !adopt(vk, req))
        error = -EPROTO;
    if (error == 0 && req->tidy && !req->owned)
        give_back(vk, req);
    mf__vk_finish(vk, req, error);
    return rc;
}

static int refuse(struct mf_vkernel *vk, int error)
{
    vk->bad_replies++;
    return error;
}

int mf__vk_write(struct mf__vk_chan *ch, const struct iovec *iov, int n)
{
    size_t len = mf__vk_iov_len(iov, n);
    struct mf_vkernel *vk = ch->vk;
    struct fuse_out_header hdr;
    struct mf__vk_req *req;

    if (len < HEADER)
        return refuse(vk, -EINVAL);
    mf__vk_gather(&hdr, 0, HEADER, iov, n);
    if (hdr.len != len)
        return refuse(vk, -EINVAL);
    if (hdr.unique == 0) {
        int rc = mf__vk_notify(vk, hdr.error, iov, n);

        return rc == -EINVAL ? refuse(vk, rc) : rc;
    }
    if (hdr.error > 0 || hdr.error <= -WORST_ERROR)
        return refuse(vk, -EINVAL);
    req = held(ch, hdr.unique & ~FUSE_INT_REQ_BIT);
    if (hdr.unique & FUSE_INT_REQ_BIT) {
        /* An answer that comes after its target's is nobody's fault. */
        return req ? answer_interrupt(ch, req, len, hdr.error) : -ENOENT;
    }
    if (!req)
        return vk->connected ? refuse(vk, -ENOENT) : -ENOENT; /* after the end every answer comes late */
    return mf__vk_answer(vk, req, iov, n, len - HEADER, hdr.error);
}
#undef HEADER
#undef WORST_ERROR

/* ==== core/vkernel/uring.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * uring.c - requests over io_uring: the queues of the possible CPUs, their entries, and the commands that the
 * filesystem gives. Nothing here waits.
 *
 * A request is copied into the entry's buffers by whoever sends it, not in the task that armed the entry: there is
 * no other difference to see, as long as that task lives.
 */


#define WORST_ERROR 512 /* the first that is none */
#define STALE 0xa5      /* what an entry holds where a request has nothing */
#define MAX_PIECES 256u

/* ---- queues ------------------------------------------------------------------------------------- */

int mf__vk_queues_new(struct mf_vkernel *vk)
{
    uint32_t n = vk->opts.queues;

    if (n == 0)
        return 0;
    vk->opts.queues = 0; /* until they are there */
    if (n > UINT16_MAX)
        return -EINVAL;
    vk->queues = calloc(n, sizeof(*vk->queues));
    if (!vk->queues)
        return -ENOMEM;
    vk->opts.queues = n;
    for (uint32_t i = 0; i < n; i++) {
        mf__vk_list_init(&vk->queues[i].idle);
        mf__vk_list_init(&vk->queues[i].busy);
        mf__vk_list_init(&vk->queues[i].pending);
    }
    return 0;
}

static void free_entry(struct mf__vk_entry *e)
{
    mf__vk_list_del(&e->at);
    mf__vk_task_put(e->task);
    free(e);
}

void mf__vk_queues_free(struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++) {
        struct mf__vk_queue *q = &vk->queues[i];

        while (!mf__vk_list_empty(&q->idle))
            free_entry(MF__VK_OF(q->idle.next, struct mf__vk_entry, at));
        while (!mf__vk_list_empty(&q->busy))
            free_entry(MF__VK_OF(q->busy.next, struct mf__vk_entry, at));
    }
    free(vk->queues);
}

void mf__vk_uring_agreed(struct mf_vkernel *vk)
{
    vk->uring_wanted = vk->opts.queues > 0 && (vk->flags & FUSE_OVER_IO_URING) != 0;
    vk->max_payload = FUSE_MIN_READ_BUFFER;
    if (vk->max_payload < vk->max_write)
        vk->max_payload = vk->max_write;
    if (vk->max_payload < vk->max_pages * MF__VK_PAGE)
        vk->max_payload = vk->max_pages * MF__VK_PAGE;
}

static uint64_t vkernel_uring_length_of(const struct mf__vk_link *head)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = head->next; l != head; l = l->next)
        n++;
    return n;
}

static uint64_t busy_count(const struct mf__vk_queue *q)
{
    uint64_t n = 0;

    for (const struct mf__vk_link *l = q->busy.next; l != &q->busy; l = l->next)
        n += MF__VK_OF(l, struct mf__vk_entry, at)->req != NULL;
    return n;
}

uint64_t mf__vk_ring_count(const struct mf_vkernel *vk)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < vk->opts.queues; i++)
        n += busy_count(&vk->queues[i]) + vkernel_uring_length_of(&vk->queues[i].pending);
    return n;
}

/* ---- requests in the entries' layout ------------------------------------------------------------- */

/* Bytes of the structure that a kernel sends first, apart from what follows it. */
static uint32_t structure_size(const struct mf_vkernel *vk, uint32_t opcode)
{
    switch (opcode) {
    case FUSE_GETATTR: return 16;
    case FUSE_SETATTR: return 88;
    case FUSE_MKNOD: return 16;
    case FUSE_MKDIR:
    case FUSE_RENAME:
    case FUSE_LINK:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_ACCESS:
    case FUSE_SYNCFS: return 8;
    case FUSE_SETXATTR: return vk->flags & FUSE_SETXATTR_EXT ? 16 : 8;
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_WRITE: return 40;
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_POLL:
    case FUSE_LSEEK:
    case FUSE_STATX: return 24;
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_BMAP:
    case FUSE_RENAME2: return 16;
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return 48;
    case FUSE_IOCTL:
    case FUSE_FALLOCATE: return 32;
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64: return 56;
    default: return 0; /* NOTIFY_REPLY's travels in the payload */
    }
}

/* Pieces are handed out in turn, so that an entry does not have the same one each time. */
static uint8_t *take_piece(struct mf_vkernel *vk, struct mf__vk_queue *q)
{
    for (uint32_t i = 0; i < q->pieces; i++) {
        uint32_t n = (q->next_piece + i) % q->pieces;

        if (q->taken[n / 64] >> (n % 64) & 1)
            continue;
        q->taken[n / 64] |= 1ull << (n % 64);
        q->next_piece = n + 1;
        return q->pool + (size_t)n * vk->max_payload;
    }
    return NULL;
}

static void give_piece(struct mf_vkernel *vk, struct mf__vk_entry *e)
{
    struct mf__vk_queue *q = e->queue;

    if (e->piece && e->piece != e->payload) {
        uint32_t n = (uint32_t)((size_t)(e->piece - q->pool) / vk->max_payload);

        q->taken[n / 64] &= ~(1ull << (n % 64));
    }
    e->piece = NULL;
}

/* Into the entry's buffers. 0 or what the request's caller gets. */
static int copy_in(struct mf_vkernel *vk, struct mf__vk_entry *e, const struct mf__vk_req *req)
{
    const uint8_t *body = req->msg + sizeof(struct fuse_in_header);
    uint32_t len = req->len - (uint32_t)sizeof(struct fuse_in_header);
    uint32_t first = structure_size(vk, req->opcode);
    struct fuse_uring_ent_in_out io = { .commit_id = mf__vk_header(req->msg)->unique };

    if (first > len)
        first = len;
    if (len - first > vk->max_payload)
        return -EIO;
    e->piece = e->payload ? e->payload : take_piece(vk, e->queue);
    if (!e->piece)
        return -EIO;
    if (!e->payload)
        io.padding = (uint32_t)(e->piece - e->queue->pool);
    io.payload_sz = len - first;
    memset(e->head, STALE, sizeof(*e->head));
    memcpy(e->head->in_out, req->msg, sizeof(struct fuse_in_header));
    memcpy(e->head->op_in, body, first);
    memcpy(e->piece, body + first, len - first);
    memcpy(&e->head->ring_ent_in_out, &io, sizeof(io));
    return 0;
}

/* An entry that is in no list gets this request. false: it is free again. */
static bool vkernel_uring_deliver(struct mf_vkernel *vk, struct mf__vk_entry *e, struct mf__vk_req *req)
{
    struct mf__vk_queue *q = e->queue;
    bool lost = atomic_load(&e->task->dead);
    int rc = lost ? -ECANCELED : copy_in(vk, e, req);
    uint64_t busy;

    mf__vk_list_del(&req->at);
    mf__vk_list_del(&e->at);
    if (rc < 0) {
        mf__vk_finish(vk, req, rc);
        if (!lost)
            return false;
        mf__vk_post_cqe(e->ring, e->user_data, -ECANCELED);
        free_entry(e);
        return true;
    }
    req->where = MF__VK_HELD;
    req->entry = e;
    e->req = req;
    mf__vk_list_add(&e->at, &q->busy);
    q->delivered++;
    busy = vkernel_uring_length_of(&q->busy);
    if (busy > q->most_busy)
        q->most_busy = (uint32_t)busy;
    mf__vk_post_cqe(e->ring, e->user_data, 0);
    return true;
}

/* The entry is idle: it takes what waits, or waits itself. */
static void rest(struct mf_vkernel *vk, struct mf__vk_entry *e)
{
    struct mf__vk_queue *q = e->queue;

    mf__vk_list_del(&e->at);
    while (!mf__vk_list_empty(&q->pending))
        if (vkernel_uring_deliver(vk, e, MF__VK_OF(q->pending.next, struct mf__vk_req, at)))
            return;
    mf__vk_list_add(&e->at, q->idle.next); /* at the head */
}

bool mf__vk_takes_ring(const struct mf_vkernel *vk, const struct mf__vk_req *req)
{
    return vk->uring_ready && (!req->silent || req->opcode == FUSE_NOTIFY_REPLY) && req->opcode != FUSE_INIT;
}

void mf__vk_queue_on_cpu(struct mf_vkernel *vk, struct mf__vk_req *req)
{
    uint32_t cpu = vk->cpu < 0 ? vk->next_cpu++ % vk->opts.queues : (uint32_t)vk->cpu;
    struct mf__vk_queue *q = &vk->queues[cpu];
    struct mf__vk_entry *e;

    if (mf__vk_list_empty(&q->idle)) {
        mf__vk_list_add(&req->at, &q->pending);
        return;
    }
    /* Not what waits longest: an entry that came after it does not know of it. */
    e = MF__VK_OF(q->idle.next, struct mf__vk_entry, at);
    if (!vkernel_uring_deliver(vk, e, req))
        rest(vk, e);
}

/* ---- commands ----------------------------------------------------------------------------------- */

static bool every_queue_has_one(const struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++)
        if (mf__vk_list_empty(&vk->queues[i].idle) && mf__vk_list_empty(&vk->queues[i].busy))
            return false;
    return true;
}

static int check_entry(const struct mf_vkernel *vk, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd)
{
    const struct iovec *iov = (const void *)(uintptr_t)sqe->addr;

    if (cmd->qid >= vk->opts.queues || sqe->len != 2 || !iov)
        return -EINVAL;
    if (iov[0].iov_len < sizeof(struct fuse_uring_req_header))
        return -EINVAL;
    if (iov[1].iov_len == 0 && vk->queues[cmd->qid].pool)
        return 0;
    return iov[1].iov_len < vk->max_payload ? -EINVAL : 0;
}

static int register_entry(struct mf__vk_uring *u, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd,
                          struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    const struct iovec *iov = (const void *)(uintptr_t)sqe->addr;
    struct mf__vk_entry *e;
    int rc = check_entry(vk, sqe, cmd);

    if (rc < 0)
        return rc;
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    mf__vk_list_init(&e->at);
    e->queue = &vk->queues[cmd->qid];
    e->ring = u;
    e->task = task;
    atomic_fetch_add(&task->refs, 1);
    e->user_data = sqe->user_data;
    e->head = iov[0].iov_base;
    e->payload = iov[1].iov_len ? iov[1].iov_base : NULL;
    /* A fresh entry does not look at what waits: that has to be brought in by a commit. */
    mf__vk_list_add(&e->at, e->queue->idle.next);
    if (!vk->uring_ready && every_queue_has_one(vk)) {
        vk->uring_ready = true;
        mf__vk_wake_clients(vk);
    }
    return 0;
}

static int add_pool(struct mf_vkernel *vk, const struct mf__sqe *sqe)
{
    struct mf__fuse_bufpool in;
    struct mf__vk_queue *q;

    memcpy(&in, sqe->cmd, sizeof(in));
    if (vk->opts.minor < 46 || in.queue >= vk->opts.queues)
        return -EINVAL;
    q = &vk->queues[in.queue];
    if (q->pool || !mf__vk_list_empty(&q->idle) || in.length < vk->max_payload)
        return -EINVAL;
    q->pool = (void *)(uintptr_t)in.address;
    q->pieces = in.length / vk->max_payload;
    if (q->pieces > MAX_PIECES)
        q->pieces = MAX_PIECES;
    return 1;
}

static struct mf__vk_entry *busy_with(struct mf__vk_queue *q, uint64_t unique)
{
    for (struct mf__vk_link *l = q->busy.next; l != &q->busy; l = l->next) {
        struct mf__vk_entry *e = MF__VK_OF(l, struct mf__vk_entry, at);

        if (e->req && mf__vk_header(e->req->msg)->unique == unique)
            return e;
    }
    return NULL;
}

/* What a bad answer brings its caller; 0: it is a good one. */
static int fault_in(const struct mf__vk_req *req, const struct fuse_out_header *hdr, uint32_t body, uint32_t max)
{
    if (hdr->unique == 0 || hdr->error > 0 || hdr->error <= -WORST_ERROR)
        return -EINVAL;
    if (hdr->unique != mf__vk_header(req->msg)->unique)
        return -ENOENT;
    if (hdr->error)
        return body ? -EIO : 0;
    if (body > max)
        return -EFAULT;
    return body < req->out_least || body > req->out_most ? -EINVAL : 0;
}

static int commit_entry(struct mf__vk_uring *u, const struct mf__sqe *sqe, const struct fuse_uring_cmd_req *cmd,
                        struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    struct mf__vk_entry *e = NULL;
    struct fuse_out_header hdr;
    struct iovec iov[2];
    uint32_t body;
    int fault;

    if (cmd->qid >= vk->opts.queues)
        return -EINVAL;
    e = busy_with(&vk->queues[cmd->qid], cmd->commit_id);
    if (!e)
        return -ENOENT;
    memcpy(&hdr, e->head->in_out, sizeof(hdr));
    body = e->head->ring_ent_in_out.payload_sz;
    fault = fault_in(e->req, &hdr, body, vk->max_payload);
    iov[0] = (struct iovec){ .iov_base = &hdr, .iov_len = sizeof(hdr) };
    iov[1] = (struct iovec){ .iov_base = e->piece, .iov_len = body };
    if (fault) {
        vk->bad_replies++;
        mf__vk_finish(vk, e->req, fault);
    } else {
        mf__vk_answer(vk, e->req, iov, 2, body, hdr.error);
    }
    give_piece(vk, e);
    /* The entry is now with whoever committed. */
    atomic_fetch_add(&task->refs, 1);
    mf__vk_task_put(e->task);
    e->task = task;
    e->ring = u;
    e->user_data = sqe->user_data;
    rest(vk, e);
    return 0;
}

int mf__vk_planned_fault(struct mf_vkernel *vk, uint32_t op)
{
    struct mf__vk_fault *f = &vk->fault;

    if (f->op != op || !f->count)
        return 0;
    if (f->skip) {
        f->skip--;
        return 0;
    }
    f->count--;
    return f->error;
}

static void register_failed(struct mf_vkernel *vk)
{
    vk->uring_wanted = false; /* those who wait go to the device */
    mf__vk_wake_clients(vk);
}

/* Less than 0: an error; 0: it completes later; more: it is done. */
static int fuse_command(struct mf__vk_uring *u, const struct mf__sqe *sqe, struct mf__vk_task *task)
{
    struct mf_vkernel *vk = u->vk;
    struct fuse_uring_cmd_req cmd;
    int rc;

    if (!(u->flags & MF__URING_SETUP_SQE128))
        return -EINVAL;
    if (vk->opts.queues == 0)
        return -EOPNOTSUPP;
    if (vk->aborted)
        return -ECONNABORTED;
    if (!vk->connected)
        return -ENOTCONN;
    if (!vk->initialized)
        return -EAGAIN;
    memcpy(&cmd, sqe->cmd, sizeof(cmd));
    rc = mf__vk_planned_fault(vk, sqe->cmd_op);
    if (rc == -EAGAIN || rc == -EINTR || (rc && sqe->cmd_op != FUSE_IO_URING_CMD_REGISTER))
        return rc;
    switch (sqe->cmd_op) {
    case FUSE_IO_URING_CMD_REGISTER:
        if (rc == 0)
            rc = register_entry(u, sqe, &cmd, task);
        if (rc < 0)
            register_failed(vk);
        return rc;
    case FUSE_IO_URING_CMD_COMMIT_AND_FETCH: return commit_entry(u, sqe, &cmd, task);
    case MF__FUSE_ADD_BUFPOOL: return add_pool(vk, sqe);
    default: return -EINVAL;
    }
}

void mf__vk_command(struct mf__vk_uring *u, const struct mf__sqe *sqe, struct mf__vk_task *task)
{
    int rc = -EINVAL;

    if (sqe->opcode == MF__URING_OP_NOP)
        rc = 1;
    else if (sqe->opcode == MF__URING_OP_URING_CMD && (!(sqe->flags & MF__URING_FIXED_FILE) || sqe->fd || !u->file))
        rc = -EBADF;
    else if (sqe->opcode == MF__URING_OP_URING_CMD)
        rc = fuse_command(u, sqe, task);
    if (rc != 0)
        mf__vk_post_cqe(u, sqe->user_data, rc < 0 ? rc : 0);
}

/* ---- ends --------------------------------------------------------------------------------------- */

void mf__vk_drop_entries(struct mf__vk_uring *u)
{
    for (uint32_t i = 0; i < u->vk->opts.queues; i++) {
        struct mf__vk_queue *q = &u->vk->queues[i];
        struct mf__vk_link *l, *next;

        for (l = q->idle.next; l != &q->idle; l = next) {
            struct mf__vk_entry *e = MF__VK_OF(l, struct mf__vk_entry, at);

            next = l->next;
            if (e->ring == u)
                free_entry(e);
        }
        /* What is in the filesystem's hands can be committed elsewhere. */
        for (l = q->busy.next; l != &q->busy; l = l->next)
            if (MF__VK_OF(l, struct mf__vk_entry, at)->ring == u)
                MF__VK_OF(l, struct mf__vk_entry, at)->ring = NULL;
    }
}

static void end_queue(struct mf_vkernel *vk, struct mf__vk_queue *q)
{
    while (!mf__vk_list_empty(&q->pending))
        mf__vk_finish(vk, MF__VK_OF(q->pending.next, struct mf__vk_req, at), -ECONNABORTED);
    while (!mf__vk_list_empty(&q->busy)) {
        struct mf__vk_entry *e = MF__VK_OF(q->busy.next, struct mf__vk_entry, at);

        if (e->req)
            mf__vk_finish(vk, e->req, -ECONNABORTED);
        free_entry(e); /* its commit learns of the end */
    }
    while (!mf__vk_list_empty(&q->idle)) {
        struct mf__vk_entry *e = MF__VK_OF(q->idle.next, struct mf__vk_entry, at);

        mf__vk_post_cqe(e->ring, e->user_data, -ENOTCONN);
        free_entry(e);
    }
}

void mf__vk_uring_disconnect(struct mf_vkernel *vk)
{
    for (uint32_t i = 0; i < vk->opts.queues; i++)
        end_queue(vk, &vk->queues[i]);
}
#undef MAX_PIECES
#undef STALE
#undef WORST_ERROR

/* ==== core/vkernel/vkernel.c ==== */
/* SPDX-License-Identifier: MIT */
/* vkernel.c - a virtual kernel's life, its channels, and everything that takes the lock and waits. */


/* A thread blocked in receive. Off the list once it is woken; it must look again, and may find nothing. */
struct reader {
    struct mf__vk_link at;
    pthread_cond_t cond;
    struct mf__vk_chan *ch;
    bool woken;
};

/* ---- wake-ups ----------------------------------------------------------------------------------- */

static void wake(struct reader *r)
{
    mf__vk_list_del(&r->at);
    r->woken = true;
    pthread_cond_signal(&r->cond);
}

void mf__vk_wake_reader(struct mf_vkernel *vk)
{
    if (!mf__vk_list_empty(&vk->readers))
        wake(MF__VK_OF(vk->readers.next, struct reader, at));
}

void mf__vk_wake_readers(struct mf_vkernel *vk)
{
    while (!mf__vk_list_empty(&vk->readers))
        mf__vk_wake_reader(vk);
}

void mf__vk_wake_clients(struct mf_vkernel *vk)
{
    pthread_cond_broadcast(&vk->ready);
}

static void time_limit(const struct mf_vkernel *vk, struct timespec *at)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    at->tv_sec += vk->timeout_ms / 1000;
    at->tv_nsec += (long)(vk->timeout_ms % 1000) * 1000000;
    if (at->tv_nsec >= 1000000000) {
        at->tv_sec++;
        at->tv_nsec -= 1000000000;
    }
}

/* ---- life --------------------------------------------------------------------------------------- */

/* Which kernel's minor was the first to offer a flag; older ones are all offered. */
static const struct {
    uint32_t minor;
    uint64_t flags;
} newer[] = {
    { 33, FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT },
    { 36, FUSE_INIT_EXT | FUSE_SECURITY_CTX },
    { 38, FUSE_CREATE_SUPP_GROUP | FUSE_HAS_EXPIRE_ONLY },
    { 39, FUSE_DIRECT_IO_ALLOW_MMAP },
    { 40, FUSE_PASSTHROUGH | FUSE_NO_EXPORT_SUPPORT | FUSE_HAS_RESEND },
    { 41, FUSE_ALLOW_IDMAP },
    { 42, FUSE_OVER_IO_URING },
    { 43, FUSE_REQUEST_TIMEOUT },
};

static uint64_t flags_of(uint32_t minor, bool uring)
{
    uint64_t flags = MF__VK_FLAGS | (uring ? FUSE_OVER_IO_URING : 0);

    for (size_t i = 0; i < MF__ARRAY_SIZE(newer); i++)
        if (minor < newer[i].minor)
            flags &= ~newer[i].flags;
    return flags;
}

static int queue_init(struct mf_vkernel *vk)
{
    struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION,
                               .minor = vk->opts.minor,
                               .max_readahead = 131072,
                               .flags = (uint32_t)vk->opts.flags };

    if (vk->opts.flags & FUSE_INIT_EXT)
        in.flags2 = (uint32_t)(vk->opts.flags >> 32);
    return mf__vk_post(vk, FUSE_INIT, 0, &in, vk->opts.minor < 36 ? 16 : sizeof(in));
}

static int vkernel_vkernel_init_locks(struct mf_vkernel *vk)
{
    pthread_condattr_t attr;
    int rc;

    if (pthread_condattr_init(&attr) != 0)
        return -ENOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&vk->ready, &attr);
    pthread_condattr_destroy(&attr);
    if (rc != 0)
        return -ENOMEM;
    if (pthread_mutex_init(&vk->lock, NULL) != 0) {
        pthread_cond_destroy(&vk->ready);
        return -ENOMEM;
    }
    return 0;
}

static void set_defaults(struct mf_vkernel *vk)
{
    if (vk->opts.minor == 0)
        vk->opts.minor = MF__VK_MINOR;
    if (vk->opts.flags == 0)
        vk->opts.flags = flags_of(vk->opts.minor, vk->opts.queues > 0);
    if (vk->opts.clone_errno == 0)
        vk->opts.clone_errno = EINVAL;
    vk->refs = 1;
    vk->cpu = -1;
    vk->uring_sys = vk->opts.queues > 0 ? &mf__vk_calls : NULL;
    vk->timeout_ms = MF__VK_TIMEOUT_MS;
    vk->connected = true;
    vk->minor = vk->opts.minor;
    vk->max_write = MF__VK_PAGE;
    vk->max_pages = 32;
    mf__vk_list_init(&vk->chans);
    mf__vk_list_init(&vk->readers);
    mf__vk_list_init(&vk->pending);
    mf__vk_list_init(&vk->interrupts);
    mf__vk_list_init(&vk->forgets);
    mf__vk_list_init(&vk->known);
    mf__vk_list_init(&vk->urings);
}

static void destroy(struct mf_vkernel *vk)
{
    while (!mf__vk_list_empty(&vk->known)) {
        struct mf__vk_req *req = MF__VK_OF(vk->known.next, struct mf__vk_req, known);

        mf__vk_list_del(&req->known);
        mf__vk_req_free(req);
    }
    while (!mf__vk_list_empty(&vk->chans)) {
        struct mf__vk_chan *ch = MF__VK_OF(vk->chans.next, struct mf__vk_chan, all);

        mf__vk_list_del(&ch->all);
        free(ch);
    }
    mf__vk_queues_free(vk);
    pthread_mutex_destroy(&vk->lock);
    pthread_cond_destroy(&vk->ready);
    free(vk->notify);
    free(vk);
}

/* Takes the lock's place: the last one frees. */
static void unlock_and_put(struct mf_vkernel *vk)
{
    bool last = --vk->refs == 0;

    pthread_mutex_unlock(&vk->lock);
    if (last)
        destroy(vk);
}

int mf_vkernel_new(const struct mf_vkernel_opts *opts, struct mf_vkernel **out)
{
    struct mf_vkernel *vk;
    int rc = 0;

    if (!out)
        return -EINVAL;
    vk = calloc(1, sizeof(*vk));
    if (!vk)
        return -ENOMEM;
    if (opts)
        rc = mf__copy_sized(&vk->opts, sizeof(vk->opts), opts, sizeof(opts->size));
    if (rc == 0)
        rc = vkernel_vkernel_init_locks(vk);
    if (rc < 0) {
        free(vk);
        return rc;
    }
    set_defaults(vk);
    rc = mf__vk_queues_new(vk);
    if (rc == 0)
        rc = queue_init(vk);
    if (rc < 0) {
        destroy(vk);
        return rc;
    }
    *out = vk;
    return 0;
}

void mf_vkernel_free(struct mf_vkernel *vk)
{
    if (!vk)
        return;
    mf_vkernel_unmount(vk);
    pthread_mutex_lock(&vk->lock);
    unlock_and_put(vk);
}

void mf_vkernel_set_timeout(struct mf_vkernel *vk, uint32_t milliseconds)
{
    pthread_mutex_lock(&vk->lock);
    vk->timeout_ms = milliseconds ? milliseconds : MF__VK_TIMEOUT_MS;
    pthread_mutex_unlock(&vk->lock);
}

void mf_vkernel_unmount(struct mf_vkernel *vk)
{
    pthread_mutex_lock(&vk->lock);
    vk->unmounted = true;
    mf__vk_disconnect(vk);
    pthread_mutex_unlock(&vk->lock);
}

void mf_vkernel_abort(struct mf_vkernel *vk)
{
    pthread_mutex_lock(&vk->lock);
    if (vk->connected)
        vk->aborted = (vk->flags & FUSE_ABORT_ERROR) != 0;
    mf__vk_disconnect(vk);
    pthread_mutex_unlock(&vk->lock);
}

/* ---- counters ----------------------------------------------------------------------------------- */

uint64_t mf_vkernel_pending(struct mf_vkernel *vk)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = mf__vk_count(vk);
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf_vkernel_reads(struct mf_vkernel *vk, uint32_t channel)
{
    struct mf__vk_link *l;
    uint64_t n = 0;

    pthread_mutex_lock(&vk->lock);
    for (l = vk->chans.next; l != &vk->chans; l = l->next) {
        struct mf__vk_chan *ch = MF__VK_OF(l, struct mf__vk_chan, all);

        if (ch->index == channel)
            n = ch->reads;
    }
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf_vkernel_bad_replies(struct mf_vkernel *vk)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->bad_replies;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint64_t mf__vkernel_notified(struct mf_vkernel *vk, uint32_t code)
{
    uint64_t n;

    pthread_mutex_lock(&vk->lock);
    n = code < MF__VK_NOTIFY_CODES ? vk->notified[code] : 0;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

size_t mf__vkernel_last_notify(struct mf_vkernel *vk, void *buf, size_t room)
{
    size_t len;

    pthread_mutex_lock(&vk->lock);
    len = vk->notify_len < room ? vk->notify_len : room;
    if (len > 0)
        memcpy(buf, vk->notify, len);
    pthread_mutex_unlock(&vk->lock);
    return len;
}

uint64_t mf__vk_flags(struct mf_vkernel *vk)
{
    uint64_t flags;

    pthread_mutex_lock(&vk->lock);
    flags = vk->flags;
    pthread_mutex_unlock(&vk->lock);
    return flags;
}

uint32_t mf__vk_max_read(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages * MF__VK_PAGE;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint32_t mf__vk_max_write(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages * MF__VK_PAGE;
    if (n > vk->max_write)
        n = vk->max_write;
    if (!(vk->flags & FUSE_BIG_WRITES))
        n = MF__VK_PAGE;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

uint32_t mf__vk_max_name(struct mf_vkernel *vk)
{
    uint32_t n;

    pthread_mutex_lock(&vk->lock);
    n = vk->max_pages > 1 ? FUSE_NAME_MAX : 1024;
    pthread_mutex_unlock(&vk->lock);
    return n;
}

/* ---- channels ----------------------------------------------------------------------------------- */

static int add_chan(struct mf_vkernel *vk, struct mf__vk_chan **out)
{
    struct mf__vk_chan *ch = calloc(1, sizeof(*ch));

    if (!ch)
        return -ENOMEM;
    ch->vk = vk;
    ch->open = true;
    ch->index = vk->n_chans++;
    mf__vk_list_init(&ch->held);
    mf__vk_list_add(&ch->all, &vk->chans);
    vk->open_chans++;
    vk->refs++;
    *out = ch;
    return 0;
}

int mf__vk_chan_first(struct mf_vkernel *vk, struct mf__vk_chan **out)
{
    int rc;

    pthread_mutex_lock(&vk->lock);
    rc = vk->n_chans > 0 ? -EBUSY : add_chan(vk, out);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_chan_clone(struct mf__vk_chan *ch, struct mf__vk_chan **out)
{
    struct mf_vkernel *vk = ch->vk;
    int rc;

    pthread_mutex_lock(&vk->lock);
    vk->clones++;
    if (vk->opts.clone_fail_at != 0 && vk->clones >= vk->opts.clone_fail_at)
        rc = -(int)vk->opts.clone_errno;
    else
        rc = add_chan(vk, out);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

void mf__vk_chan_close(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;

    pthread_mutex_lock(&vk->lock);
    ch->open = false;
    while (!mf__vk_list_empty(&ch->held))
        mf__vk_finish(vk, MF__VK_OF(ch->held.next, struct mf__vk_req, at), -ECONNABORTED);
    mf__vk_chan_drop(ch);
    unlock_and_put(vk);
}

void mf__vk_chan_hold(struct mf__vk_chan *ch)
{
    ch->vk->open_chans++;
}

void mf__vk_chan_drop(struct mf__vk_chan *ch)
{
    if (--ch->vk->open_chans == 0)
        mf__vk_disconnect(ch->vk);
}

static int wait_for_more(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;
    struct reader self = { .ch = ch };

    if (pthread_cond_init(&self.cond, NULL) != 0)
        return -ENOMEM;
    mf__vk_list_add(&self.at, &vk->readers);
    while (!self.woken)
        pthread_cond_wait(&self.cond, &vk->lock);
    pthread_cond_destroy(&self.cond);
    return 0;
}

int mf__vk_chan_receive(struct mf__vk_chan *ch, void *buf, size_t size, size_t *len)
{
    struct mf_vkernel *vk = ch->vk;
    int rc;

    pthread_mutex_lock(&vk->lock);
    do {
        if (ch->kicks > 0) {
            ch->kicks--;
            rc = -EINTR;
            break;
        }
        rc = mf__vk_take(ch, buf, size, len);
    } while (rc == -EAGAIN && (rc = wait_for_more(ch)) == 0);
    /* Whoever leaves may have used a wake-up that was meant for what is still there. */
    if (mf__vk_anything(vk))
        mf__vk_wake_reader(vk);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_chan_send(struct mf__vk_chan *ch, const struct iovec *iov, int n)
{
    int rc;

    pthread_mutex_lock(&ch->vk->lock);
    rc = mf__vk_write(ch, iov, n);
    pthread_mutex_unlock(&ch->vk->lock);
    return rc;
}

void mf__vk_chan_kick(struct mf__vk_chan *ch)
{
    struct mf_vkernel *vk = ch->vk;
    struct mf__vk_link *l;

    pthread_mutex_lock(&vk->lock);
    ch->kicks++;
    for (l = vk->readers.next; l != &vk->readers; l = l->next) {
        struct reader *r = MF__VK_OF(l, struct reader, at);

        if (r->ch == ch) {
            wake(r);
            break;
        }
    }
    pthread_mutex_unlock(&vk->lock);
}

/* ---- clients ------------------------------------------------------------------------------------ */

/* All with the lock held. No request but INIT is made before INIT was answered. */
static bool not_ready(const struct mf_vkernel *vk, bool queues)
{
    return vk->connected && (!vk->initialized || (queues && vk->uring_wanted && !vk->uring_ready));
}

/* `queues`: and before all queues have an entry, where requests shall travel over io_uring. */
static int wait_ready(struct mf_vkernel *vk, bool queues, const struct timespec *limit)
{
    while (not_ready(vk, queues))
        if (pthread_cond_timedwait(&vk->ready, &vk->lock, limit) == ETIMEDOUT && not_ready(vk, queues))
            return -ETIMEDOUT;
    if (!vk->connected)
        return -ENOTCONN;
    return vk->refused ? -ECONNREFUSED : 0;
}

static int vkernel_vkernel_submit(struct mf_vkernel *vk, const struct mf__vk_ask *ask, bool tidy, const struct timespec *limit,
                  struct mf__vk_req **out)
{
    struct mf__vk_req *req;
    int rc = wait_ready(vk, true, limit);

    if (rc < 0)
        return rc;
    if (mf__vk_iov_len(ask->in, (int)ask->n_in) > INT32_MAX)
        return -EMSGSIZE;
    req = mf__vk_req_new(&vk->opts, ask->opcode, ask->node, ask->in, ask->n_in, ask->ext_len);
    if (!req)
        return -ENOMEM;
    req->owned = !req->silent;
    req->tidy = tidy;
    mf__vk_enqueue(vk, req);
    *out = req;
    return 0;
}

/* The answer into the caller's hands. */
static int hand_over(const struct mf__vk_req *req, void *out, uint64_t room, uint64_t *len)
{
    uint64_t n = req->out_len < room ? req->out_len : room;

    *len = req->error ? 0 : req->out_len;
    if (req->error)
        return req->error;
    if (n > 0 && out)
        memcpy(out, req->out, n);
    return room < req->out_len ? -ERANGE : 0;
}

static int collect(struct mf_vkernel *vk, struct mf__vk_req *req, const struct timespec *limit)
{
    req->collected = true;
    while (!req->answered)
        if (pthread_cond_timedwait(&req->done, &vk->lock, limit) == ETIMEDOUT && !req->answered) {
            req->collected = false;
            return -ETIMEDOUT;
        }
    return 0;
}

int mf__vk_ready(struct mf_vkernel *vk)
{
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = wait_ready(vk, false, &limit);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_submit(struct mf_vkernel *vk, const struct mf__vk_ask *ask, uint64_t *id)
{
    struct mf__vk_req *req;
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = vkernel_vkernel_submit(vk, ask, false, &limit, &req);
    if (rc == 0)
        *id = req->id;
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_collect(struct mf_vkernel *vk, uint64_t id, void *out, uint64_t room, uint64_t *len)
{
    struct mf__vk_req *req;
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    *len = 0;
    req = mf__vk_known(vk, id);
    if (!req || !req->owned || req->collected) {
        pthread_mutex_unlock(&vk->lock);
        return -ENOENT;
    }
    rc = collect(vk, req, &limit);
    if (rc == 0) {
        rc = hand_over(req, out, room, len);
        mf__vk_disown(req);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_ask_raw(struct mf_vkernel *vk, struct mf__vk_ask *ask, bool tidy)
{
    struct mf__vk_req *req = NULL;
    struct timespec limit;
    int rc;

    ask->out_len = 0;
    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = vkernel_vkernel_submit(vk, ask, tidy, &limit, &req);
    if (rc == 0 && req->owned) {
        req->collected = true; /* nobody else may wait for it */
        rc = collect(vk, req, &limit);
        if (rc == 0)
            rc = hand_over(req, ask->out, ask->out_room, &ask->out_len);
        mf__vk_disown(req);
    }
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

int mf__vk_forget(struct mf_vkernel *vk, const struct mf_forget *what, size_t n)
{
    struct timespec limit;
    int rc;

    pthread_mutex_lock(&vk->lock);
    time_limit(vk, &limit);
    rc = wait_ready(vk, false, &limit);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = mf__vk_queue_forget(vk, what[i].node, what[i].nlookup);
    pthread_mutex_unlock(&vk->lock);
    return rc;
}

/* ==== core/vkernel/walk.c ==== */
/* SPDX-License-Identifier: MIT */
/* walk.c - from a path to a node, one LOOKUP for each name. */


#define MAX_LINKS 40u

/* ---- the walk's own memory ---------------------------------------------------------------------- */

/* Room for one more element of `size` bytes. */
static int vkernel_walk_grow(void **array, size_t *room, size_t n, size_t size)
{
    size_t want = *room ? *room * 2 : 8;
    void *more;

    if (n < *room)
        return 0;
    more = realloc(*array, want * size);
    if (!more)
        return -ENOMEM;
    *array = more;
    *room = want;
    return 0;
}

static int push(struct mf__vk_walk *w, const struct mf__vk_node *node)
{
    void *chain = w->chain;
    int rc = vkernel_walk_grow(&chain, &w->chain_room, w->depth, sizeof(*w->chain));

    w->chain = chain;
    if (rc == 0)
        w->chain[w->depth++] = *node;
    return rc;
}

int mf__vk_walk_remember(struct mf__vk_walk *w, uint64_t node)
{
    void *got = w->got;
    int rc = vkernel_walk_grow(&got, &w->got_room, w->n_got, sizeof(*w->got));

    w->got = got;
    if (rc < 0) {
        mf_client_forget(w->vk, node, 1);
        return rc;
    }
    w->got[w->n_got++] = (struct mf_forget){ .node = node, .nlookup = 1 };
    return 0;
}

int mf__vk_walk_begin(struct mf__vk_walk *w, struct mf_vkernel *vk)
{
    struct mf__vk_node root = { .id = MF_ROOT, .attr = { .mode = S_IFDIR } };
    int rc = mf__vk_ready(vk);

    *w = (struct mf__vk_walk){ .vk = vk };
    return rc < 0 ? rc : push(w, &root);
}

int mf__vk_walk_end(struct mf__vk_walk *w, int rc)
{
    if (w->n_got > 0)
        mf__vk_forget(w->vk, w->got, w->n_got);
    free(w->got);
    free(w->chain);
    return rc;
}

static struct mf__vk_node *top(struct mf__vk_walk *w)
{
    return &w->chain[w->depth - 1];
}

/* ---- steps -------------------------------------------------------------------------------------- */

int mf__vk_walk_lookup(struct mf__vk_walk *w, uint64_t parent, const char *name, struct mf__vk_node *out)
{
    struct fuse_entry_out e;
    int rc = mf__vk_lookup(w->vk, parent, name, &e);

    if (rc < 0)
        return rc;
    mf__vk_node_of(out, &e);
    return mf__vk_walk_remember(w, e.nodeid);
}

int mf__vk_walk_target(struct mf__vk_walk *w, uint64_t node, char **target)
{
    char *buf;
    uint64_t len;
    int rc;

    if (++w->links > MAX_LINKS)
        return -ELOOP;
    buf = calloc(1, MF__VK_PAGE);
    if (!buf)
        return -ENOMEM;
    rc = mf__vk_readlink(w->vk, node, buf, MF__VK_PAGE - 1, &len);
    if (rc == 0 && len == 0)
        rc = -ENOENT;
    if (rc < 0) {
        free(buf);
        return rc;
    }
    *target = buf;
    return 0;
}

static int follow_link(struct mf__vk_walk *w, uint64_t node)
{
    struct mf__vk_node end;
    char *target = NULL;
    int rc = mf__vk_walk_target(w, node, &target);

    if (rc < 0)
        return rc;
    rc = mf__vk_walk_to(w, target, true, &end);
    free(target);
    return rc;
}

/* Past one name. `last`: nothing follows it, not even a slash. */
static int step(struct mf__vk_walk *w, const char *name, bool last, bool follow)
{
    struct mf__vk_node node;
    int rc;

    if (!S_ISDIR(top(w)->attr.mode))
        return -ENOTDIR;
    if (strcmp(name, ".") == 0)
        return 0;
    if (strcmp(name, "..") == 0) {
        if (w->depth > 1)
            w->depth--;
        return 0;
    }
    rc = mf__vk_walk_lookup(w, top(w)->id, name, &node);
    if (rc < 0)
        return rc;
    if (S_ISLNK(node.attr.mode) && (!last || follow))
        return follow_link(w, node.id);
    return push(w, &node);
}

/* ---- paths -------------------------------------------------------------------------------------- */

/* A copy of the first `len` bytes. */
static char *copy_name(const char *s, size_t len)
{
    char *copy = malloc(len + 1);

    if (copy) {
        memcpy(copy, s, len);
        copy[len] = 0;
    }
    return copy;
}

static int step_over(struct mf__vk_walk *w, const char *at, size_t len, bool follow)
{
    char *name = copy_name(at, len);
    int rc = name ? step(w, name, at[len] == 0, follow) : -ENOMEM;

    free(name);
    return rc;
}

/* All the names in the first `len` bytes of a path. */
static int walk_names(struct mf__vk_walk *w, const char *path, size_t len, bool follow)
{
    size_t at = 0;
    int rc = 0;

    if (len > 0 && path[0] == '/')
        w->depth = 1;
    while (rc == 0 && at < len) {
        size_t n = strcspn(path + at, "/");

        if (n > 0)
            rc = step_over(w, path + at, n, follow);
        at += n + 1;
    }
    return rc;
}

int mf__vk_walk_to(struct mf__vk_walk *w, const char *path, bool follow, struct mf__vk_node *out)
{
    size_t len;
    int rc;

    if (!path)
        return -EINVAL;
    len = strlen(path);
    if (len == 0)
        return -ENOENT;
    rc = walk_names(w, path, len, follow);
    if (rc == 0 && path[len - 1] == '/' && !S_ISDIR(top(w)->attr.mode))
        rc = -ENOTDIR;
    if (rc == 0)
        *out = *top(w);
    return rc;
}

int mf__vk_walk_parent(struct mf__vk_walk *w, const char *path, int none, uint64_t *parent, char **name)
{
    size_t end, start;
    int rc;

    *name = NULL;
    if (!path)
        return -EINVAL;
    end = strlen(path);
    if (end == 0)
        return -ENOENT;
    while (end > 0 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    rc = walk_names(w, path, start, true);
    if (rc < 0)
        return rc;
    if (!S_ISDIR(top(w)->attr.mode))
        return -ENOTDIR;
    *parent = top(w)->id;
    *name = copy_name(path + start, end - start);
    if (!*name)
        return -ENOMEM;
    return !**name || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0 ? none : 0;
}
#undef MAX_LINKS

/* ==== core/vkernel/xattr.c ==== */
/* SPDX-License-Identifier: MIT */
/* xattr.c - extended attributes by path. */


#define MAX_NAME 255u
#define MAX_VALUE 65536u /* also of a list */
#define CREATE_OR_REPLACE 3u

/* What is refused before any name is looked up. */
static int vkernel_xattr_check_name(const char *name)
{
    size_t len = name ? strlen(name) : 0;

    return len == 0 || len > MAX_NAME ? -ERANGE : 0;
}

static int vkernel_xattr_reach(struct mf__vk_walk *w, struct mf_vkernel *vk, const char *path, struct mf__vk_ask *ask)
{
    struct mf__vk_node node;
    int rc = mf__vk_walk_begin(w, vk);

    if (rc == 0)
        rc = mf__vk_walk_to(w, path, true, &node);
    if (rc == 0)
        ask->node = node.id;
    return rc;
}

int mf_client_setxattr(struct mf_vkernel *vk, const char *path, const char *name, const void *value, uint64_t length,
                       uint32_t flags)
{
    struct fuse_setxattr_in in = { .size = (uint32_t)length, .flags = flags };
    struct mf__vk_ask ask = { .opcode = FUSE_SETXATTR };
    struct mf__vk_walk w;
    int rc = vkernel_xattr_check_name(name);

    if (flags & ~CREATE_OR_REPLACE)
        return -EINVAL;
    if (rc == 0 && length > MAX_VALUE)
        rc = -E2BIG;
    if (rc < 0)
        return rc;
    rc = vkernel_xattr_reach(&w, vk, path, &ask);
    if (rc == 0) {
        mf__vk_add(&ask, &in, mf__vk_flags(vk) & FUSE_SETXATTR_EXT ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE);
        mf__vk_add(&ask, name, strlen(name) + 1);
        mf__vk_add(&ask, value, (size_t)length);
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}

/* GETXATTR with a name, LISTXATTR without: the value, or where `length` is 0 its size. */
static int64_t get(struct mf_vkernel *vk, struct mf__vk_ask *ask, const char *name, void *buf, uint64_t length)
{
    struct fuse_getxattr_out size = { .size = 0 };
    struct fuse_getxattr_in in = { .size = length < MAX_VALUE ? (uint32_t)length : MAX_VALUE };
    int rc;

    mf__vk_add(ask, &in, sizeof(in));
    if (name)
        mf__vk_add(ask, name, strlen(name) + 1);
    ask->out = in.size ? buf : &size;
    ask->out_room = in.size ? in.size : sizeof(size);
    rc = mf__vk_ask(vk, ask);
    if (rc < 0)
        return rc;
    if (in.size)
        return (int64_t)ask->out_len;
    return size.size < MAX_VALUE ? size.size : MAX_VALUE;
}

int64_t mf_client_getxattr(struct mf_vkernel *vk, const char *path, const char *name, void *buf, uint64_t length)
{
    struct mf__vk_ask ask = { .opcode = FUSE_GETXATTR };
    struct mf__vk_walk w;
    int64_t n = vkernel_xattr_check_name(name);
    int rc;

    if (n < 0)
        return n;
    rc = vkernel_xattr_reach(&w, vk, path, &ask);
    n = rc < 0 ? rc : get(vk, &ask, name, buf, length);
    mf__vk_walk_end(&w, 0);
    return n;
}

/* Names that are not empty, each with its NUL. */
static bool list_ok(const char *list, uint64_t len)
{
    while (len > 0) {
        const char *end = memchr(list, 0, (size_t)len);

        if (!end || end == list)
            return false;
        len -= (uint64_t)(end - list) + 1;
        list = end + 1;
    }
    return true;
}

int64_t mf_client_listxattr(struct mf_vkernel *vk, const char *path, char *buf, uint64_t length)
{
    struct mf__vk_ask ask = { .opcode = FUSE_LISTXATTR };
    struct mf__vk_walk w;
    int rc = vkernel_xattr_reach(&w, vk, path, &ask);
    int64_t n = rc < 0 ? rc : get(vk, &ask, NULL, buf, length);

    if (n > 0 && length > 0 && !list_ok(buf, (uint64_t)n))
        n = -EIO;
    mf__vk_walk_end(&w, 0);
    return n;
}

int mf_client_removexattr(struct mf_vkernel *vk, const char *path, const char *name)
{
    struct mf__vk_ask ask = { .opcode = FUSE_REMOVEXATTR };
    struct mf__vk_walk w;
    int rc = vkernel_xattr_check_name(name);

    if (rc < 0)
        return rc;
    rc = vkernel_xattr_reach(&w, vk, path, &ask);
    if (rc == 0) {
        mf__vk_add(&ask, name, strlen(name) + 1);
        rc = mf__vk_ask(vk, &ask);
    }
    return mf__vk_walk_end(&w, rc);
}
#undef CREATE_OR_REPLACE
#undef MAX_NAME
#undef MAX_VALUE

/* ==== core/wire/decode.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * decode.c - a message's bytes to the flat record.
 *
 * Total: any bytes give a record or an error. Names end with the message's first NULs and fill its body
 * exactly, data have exactly the length that the fixed structure says. Nothing is loaded but by memcpy.
 *
 * Where the fields of operations that the table at struct mf_call leaves out go:
 *
 *   getlk, setlk, setlkw  node fh lock_owner; offset = first byte, length = last byte, flags = F_RDLCK ...,
 *                         valid = pid, op_flags = FUSE_LK_*
 *   bmap                  node; offset = block, length = block size
 *   ioctl                 node fh; flags = command, op_flags = FUSE_IOCTL_*, offset = the caller's third argument,
 *                         data and length = the input, offset2 = most bytes of output
 *   poll                  node fh; flags = events, op_flags = FUSE_POLL_*, offset = kernel's poll handle
 *   statx                 node fh; flags = AT_STATX_*, valid = STATX_* wanted
 *   syncfs                node
 *   setupmapping          node fh; offset = in the file, length, offset2 = in the window, flags
 *   removemapping         node; data = struct fuse_removemapping_one[length]
 *   notify_reply          node; offset, data, length
 *   init, interrupt       the header's fields only
 */


#define LOAD(msg, in) load(msg, &(in), sizeof(in))

static const uint8_t nothing[1];

/* ---- splitting --------------------------------------------------------------------------------------- */

static void msg_views_empty(struct mf__msg *msg)
{
    msg->args = msg->body = msg->ext = nothing;
    msg->args_len = msg->body_len = msg->ext_len = 0;
}

int mf__msg_split(struct mf__msg *msg, const void *buf, size_t len)
{
    const uint8_t *args = (const uint8_t *)buf + sizeof(msg->hdr);
    uint32_t rest, ext_len, args_len;

    if (len < sizeof(msg->hdr)) {
        memset(msg, 0, sizeof(*msg));
        if (len > 0)
            memcpy(&msg->hdr, buf, len);
        msg_views_empty(msg);
        return -EPROTO;
    }
    memcpy(&msg->hdr, buf, sizeof(msg->hdr));
    ext_len = msg->hdr.total_extlen * 8u;
    rest = msg->hdr.len - (uint32_t)sizeof(msg->hdr);
    if (msg->hdr.len != len || rest < ext_len) {
        msg_views_empty(msg);
        return -EPROTO;
    }
    rest -= ext_len;
    args_len = mf__opcode(msg->hdr.opcode)->args_size;
    if (args_len > rest)
        args_len = rest;
    msg->args = args;
    msg->args_len = args_len;
    msg->body = args + args_len;
    msg->body_len = rest - args_len;
    msg->ext = args + rest;
    msg->ext_len = ext_len;
    return 0;
}

int mf__msg_from_ring(struct mf__msg *msg, const void *header, const void *payload, size_t payload_len)
{
    const uint8_t *in = header;
    uint32_t ext_len, body_len;

    memcpy(&msg->hdr, in + offsetof(struct fuse_uring_req_header, in_out), sizeof(msg->hdr));
    ext_len = msg->hdr.total_extlen * 8u;
    if (payload_len > UINT32_MAX || payload_len < ext_len) {
        msg_views_empty(msg);
        return -EPROTO;
    }
    body_len = (uint32_t)payload_len - ext_len;
    msg->args = in + offsetof(struct fuse_uring_req_header, op_in);
    msg->args_len = mf__opcode(msg->hdr.opcode)->args_size;
    msg->body = payload_len ? payload : nothing;
    msg->ext = msg->body + body_len;
    msg->ext_len = ext_len;
    if (msg->hdr.opcode == FUSE_NOTIFY_REPLY) { /* the one whose structure travels with the data */
        msg->args = msg->body;
        if (msg->args_len > body_len)
            msg->args_len = body_len;
        msg->body += msg->args_len;
        body_len -= msg->args_len;
    }
    msg->body_len = body_len;
    return 0;
}

/* ---- pieces ------------------------------------------------------------------------------------------ */

/* The fixed structure, in today's form or in the oldest that is accepted; what that lacks is 0. */
static inline bool load(const struct mf__msg *msg, void *in, size_t size)
{
    if (msg->args_len == size) {
        memcpy(in, msg->args, size);
        return true;
    }
    if (msg->args_len != mf__opcodes[msg->hdr.opcode].args_least)
        return false;
    memset(in, 0, size);
    memcpy(in, msg->args, msg->args_len);
    return true;
}

/* A string with its NUL between p and end. What follows it, or NULL. */
static inline const uint8_t *string(const uint8_t *p, const uint8_t *end, const char **out, uint32_t *len)
{
    const uint8_t *nul = memchr(p, 0, (size_t)(end - p));

    if (!nul || nul == p)
        return NULL;
    *out = (const char *)p;
    *len = (uint32_t)(nul - p);
    return nul + 1;
}

/* The same for a name in a directory. */
static inline const uint8_t *name(const uint8_t *p, const uint8_t *end, const char **out, uint32_t *len)
{
    const uint8_t *next = string(p, end, out, len);

    return next && !memchr(p, '/', *len) ? next : NULL;
}

/* The body is one name. */
static inline int whole_name(const struct mf__msg *msg, const char **out, uint32_t *len)
{
    const uint8_t *end = msg->body + msg->body_len;

    return name(msg->body, end, out, len) == end ? 0 : -EPROTO;
}

/* `count` records of `size` bytes are the body's beginning. */
static inline int records(const struct mf__msg *msg, uint32_t count, size_t size, struct mf_call *call)
{
    if (count > msg->body_len / size)
        return -EPROTO;
    call->data = msg->body;
    call->length = count;
    return 0;
}

/* The body is `size` bytes of data. */
static inline int whole_data(const struct mf__msg *msg, uint32_t size, struct mf_call *call)
{
    if (msg->body_len != size)
        return -EPROTO;
    call->data = msg->body;
    call->length = size;
    return 0;
}

static inline void begin(const struct mf__msg *msg, struct mf_call *call)
{
    const struct fuse_in_header *hdr = &msg->hdr;

    mf__zero(call, offsetof(struct mf_call, buf)); /* what the session fills lies behind it */
    call->size = sizeof(*call);
    call->op = mf__opcodes[hdr->opcode].slot;
    call->unique = hdr->unique;
    call->node = hdr->nodeid;
    call->fh = MF_NO_FH;
    call->uid = hdr->uid;
    call->gid = hdr->gid;
    call->pid = hdr->pid;
    call->again = (hdr->unique & FUSE_UNIQUE_RESEND) != 0;
}

/* ---- references -------------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct mf_forget) == sizeof(struct fuse_forget_one) &&
                   offsetof(struct mf_forget, node) == offsetof(struct fuse_forget_one, nodeid) &&
                   offsetof(struct mf_forget, nlookup) == offsetof(struct fuse_forget_one, nlookup),
               "BATCH_FORGET's records are handed out where they lie");

static int decode_forget(const struct mf__msg *msg, struct mf_call *call, struct mf_forget *one)
{
    struct fuse_forget_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    *one = (struct mf_forget){ .node = msg->hdr.nodeid, .nlookup = in.nlookup };
    call->data = one;
    call->length = 1;
    return 0;
}

/* The records begin 48 bytes after the header, so they are aligned where the message is. */
static int decode_batch_forget(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_batch_forget_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    return records(msg, in.count, sizeof(struct fuse_forget_one), call);
}

/* ---- attributes -------------------------------------------------------------------------------------- */

static int decode_getattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_getattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    if (in.getattr_flags & FUSE_GETATTR_FH)
        call->fh = in.fh;
    return 0;
}

_Static_assert(MF_SET_MODE == FATTR_MODE && MF_SET_UID == FATTR_UID && MF_SET_GID == FATTR_GID &&
                   MF_SET_SIZE == FATTR_SIZE && MF_SET_ATIME == FATTR_ATIME && MF_SET_MTIME == FATTR_MTIME &&
                   MF_SET_FH == FATTR_FH && MF_SET_ATIME_NOW == FATTR_ATIME_NOW &&
                   MF_SET_MTIME_NOW == FATTR_MTIME_NOW && MF_SET_LOCKOWNER == FATTR_LOCKOWNER &&
                   MF_SET_CTIME == FATTR_CTIME && MF_SET_KILL_SUIDGID == FATTR_KILL_SUIDGID,
               "MF_SET_* are the kernel's bits");

static int decode_setattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_setattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->valid = in.valid;
    if (in.valid & FATTR_FH)
        call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    call->attr.size = in.size;
    call->attr.atime = (int64_t)in.atime;
    call->attr.mtime = (int64_t)in.mtime;
    call->attr.ctime = (int64_t)in.ctime;
    call->attr.atimensec = in.atimensec;
    call->attr.mtimensec = in.mtimensec;
    call->attr.ctimensec = in.ctimensec;
    call->attr.mode = in.mode;
    call->attr.uid = in.uid;
    call->attr.gid = in.gid;
    return 0;
}

static int decode_statx(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_statx_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    if (in.getattr_flags & FUSE_GETATTR_FH)
        call->fh = in.fh;
    call->flags = in.sx_flags;
    call->valid = in.sx_mask;
    return 0;
}

static int decode_access(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_access_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.mask;
    return 0;
}

/* ---- names ------------------------------------------------------------------------------------------- */

static int decode_symlink(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = name(msg->body, end, &call->name, &call->name_len);

    return p && string(p, end, &call->name2, &call->name2_len) == end ? 0 : -EPROTO;
}

static int decode_mknod(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_mknod_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->mode = in.mode;
    call->rdev = in.rdev;
    call->umask = in.umask;
    return whole_name(msg, &call->name, &call->name_len);
}

static int decode_mkdir(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_mkdir_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->mode = in.mode;
    call->umask = in.umask;
    return whole_name(msg, &call->name, &call->name_len);
}

static int two_names(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = name(msg->body, end, &call->name, &call->name_len);

    return p && name(p, end, &call->name2, &call->name2_len) == end ? 0 : -EPROTO;
}

static int decode_rename(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_rename_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node2 = in.newdir;
    return two_names(msg, call);
}

static int decode_rename2(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_rename2_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node2 = in.newdir;
    call->flags = in.flags;
    return two_names(msg, call);
}

static int decode_link(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_link_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->node = in.oldnodeid;
    call->node2 = msg->hdr.nodeid;
    return whole_name(msg, &call->name2, &call->name2_len);
}

/* ---- open files -------------------------------------------------------------------------------------- */

static int decode_open(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_open_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.flags;
    call->op_flags = in.open_flags;
    return 0;
}

static int create_args(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_create_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->flags = in.flags;
    call->mode = in.mode;
    call->umask = in.umask;
    call->op_flags = in.open_flags;
    return 0;
}

static int decode_create(const struct mf__msg *msg, struct mf_call *call)
{
    int rc = create_args(msg, call);

    return rc ? rc : whole_name(msg, &call->name, &call->name_len);
}

/* The kernel fills the name's place with "/", which nobody may take for a name. */
static int decode_tmpfile(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    int rc = create_args(msg, call);

    if (rc || string(msg->body, end, &call->name, &call->name_len) != end)
        return -EPROTO;
    call->name = "";
    call->name_len = 0;
    return 0;
}

static int decode_read(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_read_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->length = in.size;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.read_flags;
    return 0;
}

static int decode_write(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_write_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.write_flags;
    return whole_data(msg, in.size, call);
}

static int decode_flush(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_flush_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    return 0;
}

static int decode_release(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_release_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.lock_owner;
    call->flags = in.flags;
    call->op_flags = in.release_flags;
    return 0;
}

static int decode_fsync(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_fsync_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->flags = in.fsync_flags;
    return 0;
}

static int decode_fallocate(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_fallocate_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->length = in.length;
    call->mode = in.mode;
    return 0;
}

static int decode_lseek(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_lseek_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.offset;
    call->flags = in.whence;
    return 0;
}

/* Flags that the record cannot hold must not be lost in silence; none are defined. */
static inline int narrow_flags(uint64_t flags, struct mf_call *call)
{
    call->flags = (uint32_t)flags;
    return flags >> 32 ? -EPROTO : 0;
}

static int decode_copy(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_copy_file_range_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh_in;
    call->offset = in.off_in;
    call->node2 = in.nodeid_out;
    call->fh2 = in.fh_out;
    call->offset2 = in.off_out;
    call->length = in.len;
    return narrow_flags(in.flags, call);
}

static int decode_bmap(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_bmap_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->offset = in.block;
    call->length = in.blocksize;
    return 0;
}

static int decode_syncfs(const struct mf__msg *msg)
{
    struct fuse_syncfs_in in;

    return LOAD(msg, in) ? 0 : -EPROTO;
}

/* ---- extended attributes ------------------------------------------------------------------------------ */

/*
 * Without SETXATTR_EXT the structure has its old half only. The split cannot know that, so on the device,
 * where both lie together, the other half belongs to the name.
 */
static int decode_setxattr(const struct mf__msg *msg, uint64_t flags, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;
    const uint8_t *p = msg->body;
    struct fuse_setxattr_in in = { 0 };
    size_t size = flags & FUSE_SETXATTR_EXT ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE;

    if (msg->args_len < size)
        return -EPROTO;
    memcpy(&in, msg->args, size);
    if (msg->body == msg->args + msg->args_len)
        p = msg->args + size;
    p = string(p, end, &call->name, &call->name_len);
    if (!p || (size_t)(end - p) != in.size)
        return -EPROTO;
    call->data = p;
    call->length = in.size;
    call->flags = in.flags;
    call->op_flags = in.setxattr_flags;
    return 0;
}

/* These names are no names in a directory: they may hold a '/'. */
static int whole_xattr_name(const struct mf__msg *msg, struct mf_call *call)
{
    const uint8_t *end = msg->body + msg->body_len;

    return string(msg->body, end, &call->name, &call->name_len) == end ? 0 : -EPROTO;
}

static int decode_listxattr(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_getxattr_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->length = in.size;
    return 0;
}

static int decode_getxattr(const struct mf__msg *msg, struct mf_call *call)
{
    int rc = decode_listxattr(msg, call);

    return rc ? rc : whole_xattr_name(msg, call);
}

/* ---- locks, ioctl, poll, mappings --------------------------------------------------------------------- */

static int decode_lock(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_lk_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->lock_owner = in.owner;
    call->offset = in.lk.start;
    call->length = in.lk.end;
    call->flags = in.lk.type;
    call->valid = in.lk.pid;
    call->op_flags = in.lk_flags;
    return 0;
}

static int decode_ioctl(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_ioctl_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->flags = in.cmd;
    call->op_flags = in.flags;
    call->offset = in.arg;
    call->offset2 = in.out_size;
    return whole_data(msg, in.in_size, call);
}

static int decode_poll(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_poll_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.kh;
    call->flags = in.events;
    call->op_flags = in.flags;
    return 0;
}

static int decode_setupmapping(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_setupmapping_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->fh = in.fh;
    call->offset = in.foffset;
    call->length = in.len;
    call->offset2 = in.moffset;
    return narrow_flags(in.flags, call);
}

static int decode_removemapping(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_removemapping_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    return records(msg, in.count, sizeof(struct fuse_removemapping_one), call);
}

/* ---- the session's own -------------------------------------------------------------------------------- */

static int decode_notify_reply(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_notify_retrieve_in in;

    if (!LOAD(msg, in))
        return -EPROTO;
    call->offset = in.offset;
    return whole_data(msg, in.size, call);
}

/* 8 bytes before 7.6, 16 before 7.36; a longer form than ours is cut. */
int mf__decode_init(const struct mf__msg *msg, struct fuse_init_in *out)
{
    uint32_t n = msg->args_len;

    if (msg->hdr.opcode != FUSE_INIT || (n != 8 && n != 16 && n != sizeof(*out)))
        return -EPROTO;
    memset(out, 0, sizeof(*out));
    memcpy(out, msg->args, n);
    return 0;
}

int mf__decode_interrupt(const struct mf__msg *msg, uint64_t *unique)
{
    struct fuse_interrupt_in in;

    if (msg->hdr.opcode != FUSE_INTERRUPT || !LOAD(msg, in))
        return -EPROTO;
    *unique = in.unique;
    return 0;
}

static int decode_session(const struct mf__msg *msg, struct mf_call *call)
{
    struct fuse_init_in init;
    uint64_t unique;

    switch (msg->hdr.opcode) {
    case FUSE_INIT: return mf__decode_init(msg, &init);
    case FUSE_INTERRUPT: return mf__decode_interrupt(msg, &unique);
    case FUSE_NOTIFY_REPLY: return decode_notify_reply(msg, call);
    default: /* DESTROY */ return 0;
    }
}

/* ---- all ---------------------------------------------------------------------------------------------- */

/* What is seldom asked for, apart so that mf__decode stays small. */
static int decode_rest(const struct mf__msg *msg, struct mf_call *call)
{
    switch (msg->hdr.opcode) {
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW: return decode_lock(msg, call);
    case FUSE_BMAP: return decode_bmap(msg, call);
    case FUSE_IOCTL: return decode_ioctl(msg, call);
    case FUSE_POLL: return decode_poll(msg, call);
    case FUSE_FALLOCATE: return decode_fallocate(msg, call);
    case FUSE_LSEEK: return decode_lseek(msg, call);
    case FUSE_COPY_FILE_RANGE:
    case FUSE_COPY_FILE_RANGE_64: return decode_copy(msg, call);
    case FUSE_SETUPMAPPING: return decode_setupmapping(msg, call);
    case FUSE_REMOVEMAPPING: return decode_removemapping(msg, call);
    case FUSE_SYNCFS: return decode_syncfs(msg);
    case FUSE_TMPFILE: return decode_tmpfile(msg, call);
    case FUSE_STATX: return decode_statx(msg, call);
    default: return decode_session(msg, call);
    }
}

static int decode_names(const struct mf__msg *msg, uint64_t flags, struct mf_call *call)
{
    switch (msg->hdr.opcode) {
    case FUSE_SYMLINK: return decode_symlink(msg, call);
    case FUSE_MKNOD: return decode_mknod(msg, call);
    case FUSE_MKDIR: return decode_mkdir(msg, call);
    case FUSE_RENAME: return decode_rename(msg, call);
    case FUSE_RENAME2: return decode_rename2(msg, call);
    case FUSE_LINK: return decode_link(msg, call);
    case FUSE_CREATE: return decode_create(msg, call);
    case FUSE_SETXATTR: return decode_setxattr(msg, flags, call);
    case FUSE_GETXATTR: return decode_getxattr(msg, call);
    case FUSE_REMOVEXATTR: return whole_xattr_name(msg, call);
    default: return decode_rest(msg, call);
    }
}

int mf__decode(const struct mf__msg *msg, uint64_t flags, struct mf_call *call, struct mf_forget *one)
{
    if (msg->hdr.opcode >= MF__OPCODES || !mf__opcodes[msg->hdr.opcode].known)
        return -ENOSYS;
    begin(msg, call);
    switch (msg->hdr.opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR: return whole_name(msg, &call->name, &call->name_len);
    case FUSE_FORGET: return decode_forget(msg, call, one);
    case FUSE_BATCH_FORGET: return decode_batch_forget(msg, call);
    case FUSE_GETATTR: return decode_getattr(msg, call);
    case FUSE_SETATTR: return decode_setattr(msg, call);
    case FUSE_READLINK:
    case FUSE_STATFS: return 0;
    case FUSE_OPEN:
    case FUSE_OPENDIR: return decode_open(msg, call);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS: return decode_read(msg, call);
    case FUSE_WRITE: return decode_write(msg, call);
    case FUSE_FLUSH: return decode_flush(msg, call);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR: return decode_release(msg, call);
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR: return decode_fsync(msg, call);
    case FUSE_ACCESS: return decode_access(msg, call);
    case FUSE_LISTXATTR: return decode_listxattr(msg, call);
    default: return decode_names(msg, flags, call);
    }
}
#undef LOAD

/* ==== core/wire/dirent.c ==== */
/* SPDX-License-Identifier: MIT */
/* dirent.c - the records of READDIR and READDIRPLUS. */


/* The name at dst + head, zeros up to a multiple of 8. */
static int64_t finish(uint8_t *dst, uint64_t head, const char *name, uint64_t name_len, uint64_t total)
{
    memcpy(dst + head, name, name_len);
    memset(dst + head + name_len, 0, total - head - name_len);
    return (int64_t)total;
}

static struct fuse_dirent dirent(uint64_t name_len, uint64_t ino, uint32_t mode, uint64_t next)
{
    return (struct fuse_dirent){ .ino = ino, .off = next, .namelen = (uint32_t)name_len, .type = (mode >> 12) & 15 };
}

int64_t mf__put_dirent(void *dst, uint64_t room, const char *name, uint64_t name_len, uint64_t ino, uint32_t type,
                       uint64_t next)
{
    struct fuse_dirent out;
    uint64_t total;

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    total = mf__round_up(sizeof(out) + name_len, 8);
    if (total > room)
        return -ENOSPC;
    out = dirent(name_len, ino, type, next);
    memcpy(dst, &out, sizeof(out));
    return finish(dst, sizeof(out), name, name_len, total);
}

int64_t mf__put_direntplus(void *dst, uint64_t room, const char *name, uint64_t name_len, const struct mf_entry *e,
                           uint64_t next)
{
    struct fuse_direntplus out;
    uint64_t total;

    if (mf__check_name(name, name_len) < 0 || mf__check_entry(e, true) < 0)
        return -EINVAL;
    total = mf__round_up(sizeof(out) + name_len, 8);
    if (total > room)
        return -ENOSPC;
    mf__put_entry(&out.entry_out, e);
    out.dirent = dirent(name_len, out.entry_out.attr.ino, e->attr.mode, next);
    memcpy(dst, &out, sizeof(out));
    return finish(dst, sizeof(out), name, name_len, total);
}

/* ==== core/wire/encode.c ==== */
/* SPDX-License-Identifier: MIT */
/*
 * encode.c - answers. The place of one need not be aligned: most are built on the stack and copied, those that hold
 * attributes written piece by piece where they belong, for to read again at once what was written in other pieces stalls.
 */


#define S_IFMT_BITS 0170000u

#define SAME(field) (offsetof(struct mf_attr, field) == offsetof(struct fuse_attr, field))
_Static_assert(sizeof(struct mf_attr) == sizeof(struct fuse_attr) && SAME(ino) && SAME(size) && SAME(blocks) &&
                   SAME(atime) && SAME(mtime) && SAME(ctime) && SAME(atimensec) && SAME(mtimensec) && SAME(ctimensec) &&
                   SAME(mode) && SAME(nlink) && SAME(uid) && SAME(gid) && SAME(rdev) && SAME(blksize) && SAME(flags),
               "attributes are copied as they are");

#define PUT(dst, out) (memcpy(dst, &(out), sizeof(out)), sizeof(out))

/* The same structures at any address. */
struct unaligned_entry {
    struct fuse_entry_out v;
} __attribute__((packed, may_alias));

struct unaligned_attr {
    struct fuse_attr_out v;
} __attribute__((packed, may_alias));

size_t mf__put_entry(void *dst, const struct mf_entry *e)
{
    struct unaligned_entry *out = dst;

    out->v.nodeid = e->node;
    out->v.generation = e->generation;
    out->v.entry_valid = e->entry_timeout_ns / MF_SECOND;
    out->v.entry_valid_nsec = (uint32_t)(e->entry_timeout_ns % MF_SECOND);
    out->v.attr_valid = e->attr_timeout_ns / MF_SECOND;
    out->v.attr_valid_nsec = (uint32_t)(e->attr_timeout_ns % MF_SECOND);
    memcpy((uint8_t *)dst + offsetof(struct fuse_entry_out, attr), &e->attr, sizeof(out->v.attr));
    if (e->attr.ino == 0)
        out->v.attr.ino = e->node;
    return sizeof(*out);
}

size_t mf__put_attr(void *dst, uint64_t timeout_ns, uint64_t node, const struct mf_attr *a)
{
    struct unaligned_attr *out = dst;

    out->v.attr_valid = timeout_ns / MF_SECOND;
    out->v.attr_valid_nsec = (uint32_t)(timeout_ns % MF_SECOND);
    out->v.dummy = 0;
    memcpy((uint8_t *)dst + offsetof(struct fuse_attr_out, attr), a, sizeof(out->v.attr));
    if (a->ino == 0)
        out->v.attr.ino = node;
    return sizeof(*out);
}

size_t mf__put_open(void *dst, uint64_t fh, uint32_t flags, int32_t backing_id)
{
    struct fuse_open_out out = { .fh = fh, .open_flags = flags, .backing_id = backing_id };

    return PUT(dst, out);
}

size_t mf__put_write(void *dst, uint32_t size)
{
    struct fuse_write_out out = { .size = size };

    return PUT(dst, out);
}

size_t mf__put_statfs(void *dst, const struct mf_statfs *st)
{
    struct fuse_statfs_out out = { 0 };

    out.st.blocks = st->blocks;
    out.st.bfree = st->bfree;
    out.st.bavail = st->bavail;
    out.st.files = st->files;
    out.st.ffree = st->ffree;
    out.st.bsize = st->bsize;
    out.st.namelen = st->namelen;
    out.st.frsize = st->frsize;
    return PUT(dst, out);
}

size_t mf__put_xattr_size(void *dst, uint32_t size)
{
    struct fuse_getxattr_out out = { .size = size };

    return PUT(dst, out);
}

size_t mf__put_lk(void *dst, const struct mf_lock *lk)
{
    struct fuse_lk_out out = { .lk = { .start = lk->start, .end = lk->end, .type = lk->type, .pid = lk->pid } };

    return PUT(dst, out);
}

size_t mf__put_lseek(void *dst, uint64_t offset)
{
    struct fuse_lseek_out out = { .offset = offset };

    return PUT(dst, out);
}

size_t mf__put_bmap(void *dst, uint64_t block)
{
    struct fuse_bmap_out out = { .block = block };

    return PUT(dst, out);
}

size_t mf__put_poll(void *dst, uint32_t revents)
{
    struct fuse_poll_out out = { .revents = revents };

    return PUT(dst, out);
}

size_t mf__put_copy64(void *dst, uint64_t bytes)
{
    struct fuse_copy_file_range_out out = { .bytes_copied = bytes };

    return PUT(dst, out);
}

size_t mf__put_ioctl(void *dst, int32_t result, uint32_t flags, uint32_t in_iovs, uint32_t out_iovs)
{
    struct fuse_ioctl_out out = { .result = result, .flags = flags, .in_iovs = in_iovs, .out_iovs = out_iovs };

    return PUT(dst, out);
}

size_t mf__put_statx(void *dst, uint64_t timeout_ns, const struct fuse_statx *sx)
{
    struct fuse_statx_out out = { .attr_valid = timeout_ns / MF_SECOND,
                                  .attr_valid_nsec = (uint32_t)(timeout_ns % MF_SECOND),
                                  .stat = *sx };

    return PUT(dst, out);
}

/* A kernel refuses an answer that is longer than the structure it knows. */
size_t mf__put_init(void *dst, const struct fuse_init_out *out, uint32_t kernel_minor)
{
    size_t size = sizeof(*out);

    if (kernel_minor < 5)
        size = FUSE_COMPAT_INIT_OUT_SIZE;
    else if (kernel_minor < 23)
        size = FUSE_COMPAT_22_INIT_OUT_SIZE;
    memcpy(dst, out, size);
    return size;
}

void mf__put_header(void *dst, size_t body_len, int error, uint64_t unique)
{
    struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + body_len), .error = error, .unique = unique };

    memcpy(dst, &out, sizeof(out));
}

/* ---- what the kernel would refuse --------------------------------------------------------------------- */

static bool valid_type(uint32_t mode)
{
    /* FIFO, character device, directory, block device, file, link, socket: 1 2 4 6 8 10 12 */
    const uint32_t valid = 1u << 1 | 1u << 2 | 1u << 4 | 1u << 6 | 1u << 8 | 1u << 10 | 1u << 12;

    return valid >> ((mode & S_IFMT_BITS) >> 12) & 1;
}

int mf__check_attr(const struct mf_attr *a)
{
    if (!valid_type(a->mode) || a->size > INT64_MAX)
        return -EINVAL;
    if (a->atimensec >= MF_SECOND || a->mtimensec >= MF_SECOND || a->ctimensec >= MF_SECOND)
        return -EINVAL;
    return 0;
}

/* The root is an answer to the lookup of "." and ".." only, whose names are not seen here. */
int mf__check_entry(const struct mf_entry *e, bool lookup)
{
    if (e->node == 0)
        return lookup ? 0 : -EINVAL;
    if (e->node == FUSE_ROOT_ID && (!lookup || e->generation != 0))
        return -EINVAL;
    return mf__check_attr(&e->attr);
}

int mf__check_name(const char *name, uint64_t len)
{
    if (len == 0 || len > FUSE_NAME_MAX || memchr(name, '/', len) || memchr(name, 0, len))
        return -EINVAL;
    return 0;
}
#undef PUT
#undef SAME
#undef S_IFMT_BITS

/* ==== core/wire/extension.c ==== */
/* SPDX-License-Identifier: MIT */
/* extension.c - the records at the end of messages that make nodes: security contexts, groups. */


_Static_assert(sizeof(struct fuse_ext_header) == sizeof(struct fuse_secctx_header) &&
                   offsetof(struct fuse_ext_header, type) == offsetof(struct fuse_secctx_header, nr_secctx),
               "a record's type is the number of its contexts, or 32 and more");

struct record {
    const uint8_t *data; /* after the header */
    uint32_t len;
    uint32_t type;
};

/* The record at *at, which then lies behind it. 0, -ENOENT no more, -EPROTO. */
static int next_record(const struct mf__msg *msg, uint32_t *at, struct record *out)
{
    uint32_t room = msg->ext_len - *at;
    struct fuse_ext_header head;

    if (room == 0)
        return -ENOENT;
    if (room < sizeof(head))
        return -EPROTO;
    memcpy(&head, msg->ext + *at, sizeof(head));
    if (head.size < sizeof(head) || head.size > room || head.size % 8 != 0)
        return -EPROTO;
    out->data = msg->ext + *at + sizeof(head);
    out->len = head.size - (uint32_t)sizeof(head);
    out->type = head.type;
    *at += head.size;
    return 0;
}

/* The context at *p, which then lies behind it. */
static int next_secctx(const uint8_t **p, const uint8_t *end, struct mf__ext_secctx *out)
{
    struct fuse_secctx head;
    const uint8_t *nul;

    if ((size_t)(end - *p) < sizeof(head))
        return -EPROTO;
    memcpy(&head, *p, sizeof(head));
    *p += sizeof(head);
    nul = memchr(*p, 0, (size_t)(end - *p));
    if (!nul || head.size > (size_t)(end - nul - 1))
        return -EPROTO;
    out->name = (const char *)*p;
    out->value = nul + 1;
    out->value_len = head.size;
    *p = nul + 1 + head.size;
    return 0;
}

int mf__ext_secctx(const struct mf__msg *msg, uint32_t n, struct mf__ext_secctx *out)
{
    struct record rec;
    uint32_t at = 0;
    int rc;

    while ((rc = next_record(msg, &at, &rec)) == 0) {
        const uint8_t *p = rec.data;

        if (rec.type > FUSE_MAX_NR_SECCTX)
            continue;
        for (uint32_t i = 0; i < rec.type; i++) {
            rc = next_secctx(&p, rec.data + rec.len, out);
            if (rc < 0)
                return rc;
            if (n-- == 0)
                return 0;
        }
    }
    return rc;
}

int mf__ext_group(const struct mf__msg *msg, uint32_t n, uint32_t *gid)
{
    struct fuse_supp_groups groups;
    struct record rec;
    uint32_t at = 0;
    int rc;

    while ((rc = next_record(msg, &at, &rec)) == 0) {
        if (rec.type != FUSE_EXT_GROUPS)
            continue;
        if (rec.len < sizeof(groups))
            return -EPROTO;
        memcpy(&groups, rec.data, sizeof(groups));
        if (groups.nr_groups > (rec.len - sizeof(groups)) / sizeof(*gid))
            return -EPROTO;
        if (n < groups.nr_groups) {
            memcpy(gid, rec.data + sizeof(groups) + n * sizeof(*gid), sizeof(*gid));
            return 0;
        }
        n -= groups.nr_groups;
    }
    return rc;
}

/* ==== core/wire/notify.c ==== */
/* SPDX-License-Identifier: MIT */
/* notify.c - messages that nobody asked for: a reply header whose unique is 0 and whose error is the code. */


#define HEAD sizeof(struct fuse_out_header)

/* Header and fixed structure at dst, before `tail` bytes more. The length of both, or -ENOSPC, -EINVAL. */
static int64_t put_head(void *dst, size_t room, int code, const void *body, size_t size, uint64_t tail)
{
    if (tail > UINT32_MAX - HEAD - size)
        return -EINVAL;
    if (room < HEAD + size)
        return -ENOSPC;
    mf__put_header(dst, size + tail, code, 0);
    if (size > 0)
        memcpy((uint8_t *)dst + HEAD, body, size);
    return (int64_t)(HEAD + size);
}

/* The same, then the tail. */
static int64_t put(void *dst, size_t room, int code, const void *body, size_t size, const void *tail, uint64_t tail_len)
{
    int64_t n;

    if (tail_len > room)
        return -ENOSPC;
    n = put_head(dst, room - tail_len, code, body, size, tail_len);
    if (n < 0)
        return n;
    if (tail_len > 0)
        memcpy((uint8_t *)dst + n, tail, tail_len);
    return n + (int64_t)tail_len;
}

/* The same where the tail is a name and its NUL. */
static int64_t put_name(void *dst, size_t room, int code, const void *body, size_t size, const char *name, uint64_t len)
{
    int64_t n;

    if (room == 0)
        return -ENOSPC;
    n = put(dst, room - 1, code, body, size, name, len);
    if (n < 0)
        return n;
    ((uint8_t *)dst)[n] = 0;
    mf__put_header(dst, size + len + 1, code, 0);
    return n + 1;
}

int64_t mf__put_notify_inval_inode(void *dst, size_t room, uint64_t node, int64_t offset, int64_t length)
{
    struct fuse_notify_inval_inode_out out = { .ino = node, .off = offset, .len = length };

    return put(dst, room, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_inval_entry(void *dst, size_t room, uint64_t parent, const char *name, uint64_t name_len,
                                   uint32_t flags)
{
    struct fuse_notify_inval_entry_out out = { .parent = parent, .namelen = (uint32_t)name_len, .flags = flags };

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    return put_name(dst, room, FUSE_NOTIFY_INVAL_ENTRY, &out, sizeof(out), name, name_len);
}

int64_t mf__put_notify_delete(void *dst, size_t room, uint64_t parent, uint64_t child, const char *name,
                              uint64_t name_len)
{
    struct fuse_notify_delete_out out = { .parent = parent, .child = child, .namelen = (uint32_t)name_len };

    if (mf__check_name(name, name_len) < 0)
        return -EINVAL;
    return put_name(dst, room, FUSE_NOTIFY_DELETE, &out, sizeof(out), name, name_len);
}

int64_t mf__put_notify_poll(void *dst, size_t room, uint64_t kh)
{
    struct fuse_notify_poll_wakeup_out out = { .kh = kh };

    return put(dst, room, FUSE_NOTIFY_POLL, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_store_head(void *dst, size_t room, uint64_t node, uint64_t offset, uint32_t size)
{
    struct fuse_notify_store_out out = { .nodeid = node, .offset = offset, .size = size };

    return put_head(dst, room, FUSE_NOTIFY_STORE, &out, sizeof(out), size);
}

int64_t mf__put_notify_retrieve(void *dst, size_t room, uint64_t unique, uint64_t node, uint64_t offset, uint32_t size)
{
    struct fuse_notify_retrieve_out out = { .notify_unique = unique, .nodeid = node, .offset = offset, .size = size };

    return put(dst, room, FUSE_NOTIFY_RETRIEVE, &out, sizeof(out), NULL, 0);
}

int64_t mf__put_notify_prune(void *dst, size_t room, const uint64_t *nodes, uint32_t count)
{
    struct fuse_notify_prune_out out = { .count = count };

    return put(dst, room, FUSE_NOTIFY_PRUNE, &out, sizeof(out), nodes, count * (uint64_t)sizeof(*nodes));
}

int64_t mf__put_notify_plain(void *dst, size_t room, int32_t code)
{
    if (code != FUSE_NOTIFY_RESEND && code != FUSE_NOTIFY_INC_EPOCH)
        return -EINVAL;
    return put(dst, room, code, NULL, 0, NULL, 0);
}
#undef HEAD

/* ==== core/wire/opcode.c ==== */
/* SPDX-License-Identifier: MIT */
/* opcode.c - opcode.def as a table. */

/* clang-format off */
#define MF__OPCODE(nr, op, minor, size, least, strings, kind, number, flags)                   \
    [nr] = { .name = #op, .known = 1, .since = (minor), .args_size = (size), .args_least = (least), \
             .names = (strings), .reply = MF__REPLY_##kind, .slot = (number), .props = (flags) },
const struct mf__opcode mf__opcodes[MF__OPCODES] = {
/* core/wire/opcode.def */
/* SPDX-License-Identifier: MIT */
/*
 * opcode.def - the only list of opcodes.
 *
 * MF__OPCODE(number, name, since, args size, least args size, names, reply, slot, properties)
 *
 * since   protocol minor; 1 stands for "always"
 * args    bytes of the fixed structure after the header; the least is the oldest form that is accepted, where
 *         the message's length (or, for SETXATTR, an INIT flag) tells the forms apart. Kernels before 7.12, whose
 *         MKNOD, CREATE and WRITE cannot be told apart so, are not served.
 * names   strings with a NUL that follow
 * reply   MF__REPLY_ and this: what the answer holds
 * slot    MF_OP_* that serves it, 0 = none
 */
#define ACL MF__OPC_ACL
#define SESSION MF__OPC_SESSION
#define ALWAYS MF__OPC_ALWAYS
#define LATER MF__OPC_LATER

/*         nr  name                since size least names reply  slot properties */
MF__OPCODE(1, LOOKUP, 1, 0, 0, 1, ENTRY, 1, ACL)
MF__OPCODE(2, FORGET, 1, 8, 8, 0, NEVER, 2, 0)
MF__OPCODE(3, GETATTR, 1, 16, 0, 0, ATTR, 3, ACL)
MF__OPCODE(4, SETATTR, 1, 88, 88, 0, ATTR, 4, ACL)
MF__OPCODE(5, READLINK, 1, 0, 0, 0, DATA, 5, ACL)
MF__OPCODE(6, SYMLINK, 1, 0, 0, 2, ENTRY, 6, ACL)
MF__OPCODE(8, MKNOD, 1, 16, 16, 1, ENTRY, 8, ACL)
MF__OPCODE(9, MKDIR, 1, 8, 8, 1, ENTRY, 9, ACL)
MF__OPCODE(10, UNLINK, 1, 0, 0, 1, EMPTY, 10, ACL)
MF__OPCODE(11, RMDIR, 1, 0, 0, 1, EMPTY, 11, ACL)
MF__OPCODE(12, RENAME, 1, 8, 8, 2, EMPTY, 12, ACL)
MF__OPCODE(13, LINK, 1, 8, 8, 1, ENTRY, 13, ACL)
MF__OPCODE(14, OPEN, 1, 8, 8, 0, OPEN, 14, ACL)
MF__OPCODE(15, READ, 1, 40, 24, 0, DATA, 15, 0)
MF__OPCODE(16, WRITE, 1, 40, 40, 0, WRITE, 16, 0)
MF__OPCODE(17, STATFS, 1, 0, 0, 0, STATFS, 17, ACL)
MF__OPCODE(18, RELEASE, 1, 24, 16, 0, EMPTY, 18, ALWAYS)
MF__OPCODE(20, FSYNC, 1, 16, 16, 0, EMPTY, 20, 0)
MF__OPCODE(21, SETXATTR, 1, 16, 8, 1, EMPTY, 21, ACL)
MF__OPCODE(22, GETXATTR, 1, 8, 8, 1, XATTR, 22, ACL)
MF__OPCODE(23, LISTXATTR, 1, 8, 8, 0, XATTR, 23, ACL)
MF__OPCODE(24, REMOVEXATTR, 1, 0, 0, 1, EMPTY, 24, ACL)
MF__OPCODE(25, FLUSH, 1, 24, 16, 0, EMPTY, 25, 0)
MF__OPCODE(26, INIT, 1, 64, 8, 0, INIT, 0, SESSION)
MF__OPCODE(27, OPENDIR, 1, 8, 8, 0, OPEN, 27, ACL)
MF__OPCODE(28, READDIR, 1, 40, 24, 0, DATA, 28, 0)
MF__OPCODE(29, RELEASEDIR, 1, 24, 16, 0, EMPTY, 29, ALWAYS)
MF__OPCODE(30, FSYNCDIR, 2, 16, 16, 0, EMPTY, 30, 0)
MF__OPCODE(31, GETLK, 7, 48, 40, 0, LK, 31, LATER)
MF__OPCODE(32, SETLK, 7, 48, 40, 0, EMPTY, 32, LATER)
MF__OPCODE(33, SETLKW, 7, 48, 40, 0, EMPTY, 33, LATER)
MF__OPCODE(34, ACCESS, 3, 8, 8, 0, EMPTY, 34, ACL)
MF__OPCODE(35, CREATE, 3, 16, 16, 1, CREATE, 35, ACL)
MF__OPCODE(36, INTERRUPT, 7, 8, 8, 0, NEVER, 0, SESSION) /* may be answered: EAGAIN, ENOSYS; need not be */
MF__OPCODE(37, BMAP, 8, 16, 16, 0, BMAP, 37, ACL | LATER)
MF__OPCODE(38, DESTROY, 8, 0, 0, 0, EMPTY, 0, SESSION)
MF__OPCODE(39, IOCTL, 11, 32, 32, 0, IOCTL, 39, LATER)
MF__OPCODE(40, POLL, 11, 24, 24, 0, POLL, 40, LATER)
MF__OPCODE(41, NOTIFY_REPLY, 15, 40, 40, 0, NEVER, 0, SESSION)
MF__OPCODE(42, BATCH_FORGET, 16, 8, 8, 0, NEVER, 2, 0)
MF__OPCODE(43, FALLOCATE, 19, 32, 32, 0, EMPTY, 43, LATER)
MF__OPCODE(44, READDIRPLUS, 21, 40, 24, 0, DATA, 44, LATER)
MF__OPCODE(45, RENAME2, 23, 16, 16, 2, EMPTY, 12, ACL)
MF__OPCODE(46, LSEEK, 24, 24, 24, 0, LSEEK, 46, LATER)
MF__OPCODE(47, COPY_FILE_RANGE, 28, 56, 56, 0, WRITE, 47, LATER)
MF__OPCODE(48, SETUPMAPPING, 31, 40, 40, 0, EMPTY, 0, LATER)
MF__OPCODE(49, REMOVEMAPPING, 31, 4, 4, 0, EMPTY, 0, LATER)
MF__OPCODE(50, SYNCFS, 34, 8, 8, 0, EMPTY, 50, LATER)
MF__OPCODE(51, TMPFILE, 37, 16, 16, 1, CREATE, 51, ACL | LATER)
MF__OPCODE(52, STATX, 39, 24, 24, 0, STATX, 52, ACL | LATER)
MF__OPCODE(53, COPY_FILE_RANGE_64, 45, 56, 56, 0, COPY64, 47, LATER)

#undef ACL
#undef SESSION
#undef ALWAYS
#undef LATER
};
#undef MF__OPCODE

/* The table against kernel.h, and the limits of what holds its numbers: bits of a 64-bit set, op_in of a ring. */
#define MF__OPCODE(nr, op, minor, size, least, strings, kind, number, flags)                   \
    _Static_assert(FUSE_##op == (nr) && (nr) < MF__OPCODES && (number) < 64, #op);             \
    _Static_assert((size) <= FUSE_URING_OP_IN_OUT_SZ && (least) <= (size), #op " arguments");
/* core/wire/opcode.def */
/* SPDX-License-Identifier: MIT */
/*
 * opcode.def - the only list of opcodes.
 *
 * MF__OPCODE(number, name, since, args size, least args size, names, reply, slot, properties)
 *
 * since   protocol minor; 1 stands for "always"
 * args    bytes of the fixed structure after the header; the least is the oldest form that is accepted, where
 *         the message's length (or, for SETXATTR, an INIT flag) tells the forms apart. Kernels before 7.12, whose
 *         MKNOD, CREATE and WRITE cannot be told apart so, are not served.
 * names   strings with a NUL that follow
 * reply   MF__REPLY_ and this: what the answer holds
 * slot    MF_OP_* that serves it, 0 = none
 */
#define ACL MF__OPC_ACL
#define SESSION MF__OPC_SESSION
#define ALWAYS MF__OPC_ALWAYS
#define LATER MF__OPC_LATER

/*         nr  name                since size least names reply  slot properties */
MF__OPCODE(1, LOOKUP, 1, 0, 0, 1, ENTRY, 1, ACL)
MF__OPCODE(2, FORGET, 1, 8, 8, 0, NEVER, 2, 0)
MF__OPCODE(3, GETATTR, 1, 16, 0, 0, ATTR, 3, ACL)
MF__OPCODE(4, SETATTR, 1, 88, 88, 0, ATTR, 4, ACL)
MF__OPCODE(5, READLINK, 1, 0, 0, 0, DATA, 5, ACL)
MF__OPCODE(6, SYMLINK, 1, 0, 0, 2, ENTRY, 6, ACL)
MF__OPCODE(8, MKNOD, 1, 16, 16, 1, ENTRY, 8, ACL)
MF__OPCODE(9, MKDIR, 1, 8, 8, 1, ENTRY, 9, ACL)
MF__OPCODE(10, UNLINK, 1, 0, 0, 1, EMPTY, 10, ACL)
MF__OPCODE(11, RMDIR, 1, 0, 0, 1, EMPTY, 11, ACL)
MF__OPCODE(12, RENAME, 1, 8, 8, 2, EMPTY, 12, ACL)
MF__OPCODE(13, LINK, 1, 8, 8, 1, ENTRY, 13, ACL)
MF__OPCODE(14, OPEN, 1, 8, 8, 0, OPEN, 14, ACL)
MF__OPCODE(15, READ, 1, 40, 24, 0, DATA, 15, 0)
MF__OPCODE(16, WRITE, 1, 40, 40, 0, WRITE, 16, 0)
MF__OPCODE(17, STATFS, 1, 0, 0, 0, STATFS, 17, ACL)
MF__OPCODE(18, RELEASE, 1, 24, 16, 0, EMPTY, 18, ALWAYS)
MF__OPCODE(20, FSYNC, 1, 16, 16, 0, EMPTY, 20, 0)
MF__OPCODE(21, SETXATTR, 1, 16, 8, 1, EMPTY, 21, ACL)
MF__OPCODE(22, GETXATTR, 1, 8, 8, 1, XATTR, 22, ACL)
MF__OPCODE(23, LISTXATTR, 1, 8, 8, 0, XATTR, 23, ACL)
MF__OPCODE(24, REMOVEXATTR, 1, 0, 0, 1, EMPTY, 24, ACL)
MF__OPCODE(25, FLUSH, 1, 24, 16, 0, EMPTY, 25, 0)
MF__OPCODE(26, INIT, 1, 64, 8, 0, INIT, 0, SESSION)
MF__OPCODE(27, OPENDIR, 1, 8, 8, 0, OPEN, 27, ACL)
MF__OPCODE(28, READDIR, 1, 40, 24, 0, DATA, 28, 0)
MF__OPCODE(29, RELEASEDIR, 1, 24, 16, 0, EMPTY, 29, ALWAYS)
MF__OPCODE(30, FSYNCDIR, 2, 16, 16, 0, EMPTY, 30, 0)
MF__OPCODE(31, GETLK, 7, 48, 40, 0, LK, 31, LATER)
MF__OPCODE(32, SETLK, 7, 48, 40, 0, EMPTY, 32, LATER)
MF__OPCODE(33, SETLKW, 7, 48, 40, 0, EMPTY, 33, LATER)
MF__OPCODE(34, ACCESS, 3, 8, 8, 0, EMPTY, 34, ACL)
MF__OPCODE(35, CREATE, 3, 16, 16, 1, CREATE, 35, ACL)
MF__OPCODE(36, INTERRUPT, 7, 8, 8, 0, NEVER, 0, SESSION) /* may be answered: EAGAIN, ENOSYS; need not be */
MF__OPCODE(37, BMAP, 8, 16, 16, 0, BMAP, 37, ACL | LATER)
MF__OPCODE(38, DESTROY, 8, 0, 0, 0, EMPTY, 0, SESSION)
MF__OPCODE(39, IOCTL, 11, 32, 32, 0, IOCTL, 39, LATER)
MF__OPCODE(40, POLL, 11, 24, 24, 0, POLL, 40, LATER)
MF__OPCODE(41, NOTIFY_REPLY, 15, 40, 40, 0, NEVER, 0, SESSION)
MF__OPCODE(42, BATCH_FORGET, 16, 8, 8, 0, NEVER, 2, 0)
MF__OPCODE(43, FALLOCATE, 19, 32, 32, 0, EMPTY, 43, LATER)
MF__OPCODE(44, READDIRPLUS, 21, 40, 24, 0, DATA, 44, LATER)
MF__OPCODE(45, RENAME2, 23, 16, 16, 2, EMPTY, 12, ACL)
MF__OPCODE(46, LSEEK, 24, 24, 24, 0, LSEEK, 46, LATER)
MF__OPCODE(47, COPY_FILE_RANGE, 28, 56, 56, 0, WRITE, 47, LATER)
MF__OPCODE(48, SETUPMAPPING, 31, 40, 40, 0, EMPTY, 0, LATER)
MF__OPCODE(49, REMOVEMAPPING, 31, 4, 4, 0, EMPTY, 0, LATER)
MF__OPCODE(50, SYNCFS, 34, 8, 8, 0, EMPTY, 50, LATER)
MF__OPCODE(51, TMPFILE, 37, 16, 16, 1, CREATE, 51, ACL | LATER)
MF__OPCODE(52, STATX, 39, 24, 24, 0, STATX, 52, ACL | LATER)
MF__OPCODE(53, COPY_FILE_RANGE_64, 45, 56, 56, 0, COPY64, 47, LATER)

#undef ACL
#undef SESSION
#undef ALWAYS
#undef LATER
#undef MF__OPCODE
/* clang-format on */

/* Whatever a newer kernel asks, it is owed an answer. */
const struct mf__opcode mf__no_opcode = { .name = "?", .reply = MF__REPLY_EMPTY };
#undef MF__OPCODE
