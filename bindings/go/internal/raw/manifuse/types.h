/* Generated from core/ and abi/include/ by tools/amalgamate.py; do not edit. */
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
