/* SPDX-License-Identifier: MIT */
/*
 * cdef.h - the interface as cffi reads it: the declarations of abi/include/manifuse/{types,manifuse,testing}.h
 * without comments and attributes. The compiler fills in values and layouts, so a field that is appended
 * there needs no change here until Python uses it; abi/check.sh compares the lists of functions.
 */

/* types.h */
struct mf_session;
struct mf_req;

#define MF_ROOT ...
#define MF_NO_FH ...
#define MF_SECOND ...

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

struct mf_error {
    uint32_t size;
    int32_t code;
    char text[...];
    ...;
};

struct mf_attr {
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    int64_t atime;
    int64_t mtime;
    int64_t ctime;
    uint32_t atimensec;
    uint32_t mtimensec;
    uint32_t ctimensec;
    uint32_t mode;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev;
    uint32_t blksize;
    uint32_t flags;
};

struct mf_entry {
    uint32_t size;
    uint32_t reserved;
    uint64_t node;
    uint64_t generation;
    uint64_t entry_timeout_ns;
    uint64_t attr_timeout_ns;
    struct mf_attr attr;
    ...;
};

struct mf_open {
    uint32_t size;
    uint32_t flags;
    uint64_t fh;
    int32_t backing_id;
    uint32_t reserved;
    ...;
};

#define MF_OPEN_DIRECT_IO ...
#define MF_OPEN_KEEP_CACHE ...
#define MF_OPEN_NONSEEKABLE ...
#define MF_OPEN_CACHE_DIR ...
#define MF_OPEN_STREAM ...
#define MF_OPEN_NOFLUSH ...
#define MF_OPEN_PARALLEL_DIRECT_WRITES ...
#define MF_OPEN_PASSTHROUGH ...

struct mf_statfs {
    uint32_t size;
    uint32_t reserved;
    uint64_t blocks;
    uint64_t bfree;
    uint64_t bavail;
    uint64_t files;
    uint64_t ffree;
    uint32_t bsize;
    uint32_t namelen;
    uint32_t frsize;
    uint32_t reserved2;
    ...;
};

struct mf_lock {
    uint64_t start;
    uint64_t end;
    uint32_t type;
    uint32_t pid;
};

struct mf_forget {
    uint64_t node;
    uint64_t nlookup;
};

#define MF_SET_MODE ...
#define MF_SET_UID ...
#define MF_SET_GID ...
#define MF_SET_SIZE ...
#define MF_SET_ATIME ...
#define MF_SET_MTIME ...
#define MF_SET_FH ...
#define MF_SET_ATIME_NOW ...
#define MF_SET_MTIME_NOW ...
#define MF_SET_LOCKOWNER ...
#define MF_SET_CTIME ...
#define MF_SET_KILL_SUIDGID ...

struct mf_answer {
    uint64_t node;
    uint64_t generation;
    uint64_t entry_timeout_ns;
    uint64_t attr_timeout_ns;
    struct mf_attr attr;
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
    const void *data;
    uint64_t data_len;
    uint64_t data_offset;
    int32_t data_fd;
    uint32_t flags;
    uint64_t value;
};

#define MF_ANSWER_FD ...

struct mf_call {
    uint32_t size;
    uint32_t op;
    uint64_t unique;
    uint64_t node;
    uint64_t fh;
    uint64_t offset;
    uint64_t length;
    uint64_t node2;
    uint64_t fh2;
    uint64_t offset2;
    uint64_t lock_owner;
    const char *name;
    const char *name2;
    const void *data;
    uint32_t name_len;
    uint32_t name2_len;
    uint32_t flags;
    uint32_t op_flags;
    uint32_t mode;
    uint32_t rdev;
    uint32_t umask;
    uint32_t valid;
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;
    uint32_t again;
    struct mf_attr attr;
    void *buf;
    uint64_t buf_size;
    struct mf_req *req;
    struct mf_session *session;
    uint32_t reader;
    uint32_t reserved;
    struct mf_answer answer;
    ...;
};

#define MF_ANSWER_LATER ...
#define MF_ANSWERED ...

struct mf_upcall_ops {
    uint32_t size; /* the rest is glue.c's */
    ...;
};

struct mf_read_in {
    uint64_t fh;
    uint64_t offset;
    uint64_t length;
    uint64_t lock_owner;
    uint32_t flags;
    uint32_t read_flags;
};
struct mf_write_in {
    uint64_t fh;
    uint64_t offset;
    uint64_t length;
    uint64_t lock_owner;
    const void *data;
    uint32_t flags;
    uint32_t write_flags;
};
struct mf_setattr_in {
    uint64_t fh;
    uint64_t lock_owner;
    uint32_t valid;
    uint32_t reserved;
    struct mf_attr attr;
};
struct mf_release_in {
    uint64_t fh;
    uint64_t lock_owner;
    uint32_t flags;
    uint32_t release_flags;
};

struct mf_ops {
    uint32_t size;
    uint32_t flags;
    void (*destroy)(void *user);
    void (*reader_start)(struct mf_session *session, uint32_t reader, void *user);
    void (*reader_end)(struct mf_session *session, uint32_t reader, void *user);
    void (*interrupted)(struct mf_session *session, uint64_t unique, void *user);
    void (*lookup)(struct mf_req *req, uint64_t parent, const char *name, void *user);
    void (*forget)(struct mf_req *req, const struct mf_forget *items, uint64_t count, void *user);
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
    ...;
};

enum mf_clone_mode { MF_CLONE_AUTO = 0, MF_CLONE_OFF = 1, MF_CLONE_REQUIRE = 2 };

enum mf_acl { MF_ACL_OWNER = 0, MF_ACL_ROOT_AND_OWNER = 1, MF_ACL_ALL = 2 };

enum mf_uring_mode { MF_URING_AUTO = 0, MF_URING_OFF = 1, MF_URING_REQUIRE = 2 };

enum mf_placement { MF_PLACEMENT_AUTO = 0, MF_PLACEMENT_PINNED = 1, MF_PLACEMENT_FREE = 2 };

enum mf_log_level { MF_LOG_ERROR = 0, MF_LOG_WARNING = 1, MF_LOG_INFO = 2, MF_LOG_DEBUG = 3 };

#define MF_OPT_SIGNALS ...
#define MF_OPT_INLINE ...
#define MF_OPT_NO_LATENCY ...
#define MF_OPT_DEBUG ...
#define MF_OPT_WRITEBACK ...
#define MF_OPT_NO_UNMOUNT ...

struct mf_session_opts {
    uint32_t size;
    uint32_t flags;
    uint32_t readers;
    uint32_t clone_fd;
    uint32_t uring;
    uint32_t acl;
    uint32_t max_write;
    uint32_t max_readahead;
    uint32_t max_background;
    uint32_t time_gran;
    uint32_t max_outstanding;
    uint32_t stop_timeout_ms;
    uint64_t want;
    uint64_t unwant;
    const char *mount_options;
    const char *fsname;
    const char *subtype;

    void (*log)(uint32_t level, const char *text, void *log_user);
    void *log_user;
    uint32_t placement;
    ...;
};

#define MF_NEGOTIATED_VERSION ...

struct mf_negotiated {
    uint32_t size;
    uint32_t version;
    uint32_t major;
    uint32_t minor;
    uint32_t kernel_minor;
    uint32_t max_write;
    uint32_t max_pages;
    uint32_t max_readahead;
    uint32_t max_background;
    uint32_t time_gran;
    uint64_t flags;
    uint64_t offered;
    uint64_t implemented;
    uint32_t acl;
    uint32_t owner_uid;
    uint32_t owner_gid;
    uint32_t transport;
    uint64_t connection;
    ...;
};

enum mf_transport_kind { MF_TRANSPORT_DEVICE = 1, MF_TRANSPORT_URING = 2, MF_TRANSPORT_MEMORY = 3 };

struct mf_info {
    uint32_t size;
    uint32_t readers;
    uint32_t channels;
    uint32_t transport;
    uint32_t clone_error;
    uint32_t failed_readers;
    uint64_t connection;
    char clone_reason[128];
    char transport_reason[128];
    uint64_t growths;
    uint64_t shrinks;
    char placement[128];
    ...;
};

#define MF_STATS_OPS ...
#define MF_STATS_BUCKETS ...

struct mf_op_stats {
    uint64_t requests;
    uint64_t errors;
    uint64_t bytes_in;
    uint64_t bytes_out;
};

struct mf_reader_stats {
    uint32_t size;
    uint32_t reader;
    int32_t fd;
    uint32_t tid;
    uint64_t requests;
    uint64_t replies;
    uint64_t errors;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t in_flight;
    uint64_t wakeups;
    uint64_t malformed;
    uint64_t forgotten;
    uint64_t interrupts;
    struct mf_op_stats ops[...];
    uint64_t latency[...];
    ...;
};

/* manifuse.h */
const char *mf_version(void);

void mf_session_opts_init(struct mf_session_opts *opts, uint32_t size);

const char *mf_op_name(uint32_t opcode);

int mf_session_new(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, struct mf_session **out,
                   struct mf_error *err);

int mf_session_new_upcall(const struct mf_upcall_ops *ops, void *user, const struct mf_session_opts *opts,
                          struct mf_session **out, struct mf_error *err);

int mf_session_mount(struct mf_session *s, const char *mountpoint, struct mf_error *err);

int mf_session_attach_fds(struct mf_session *s, const int *fds, uint32_t n, struct mf_error *err);

int mf_session_from_fd_initialized(const struct mf_ops *ops, void *user, const struct mf_session_opts *opts, int fd,
                                   const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err);

int mf_session_from_fd_initialized_upcall(const struct mf_upcall_ops *ops, void *user,
                                          const struct mf_session_opts *opts, int fd, const struct mf_negotiated *neg,
                                          struct mf_session **out, struct mf_error *err);

int mf_session_clone_fd(struct mf_session *s, int *fd);

int mf_session_negotiated(struct mf_session *s, struct mf_negotiated *out, uint32_t size);

int mf_negotiated_check(const struct mf_negotiated *neg, struct mf_error *err);

int mf_session_add_reader(struct mf_session *s);

int mf_session_run(struct mf_session *s);

int mf_session_start(struct mf_session *s);

int mf_session_wait(struct mf_session *s, int timeout_ms);

int mf_session_finish(struct mf_session *s);

void mf_session_stop(struct mf_session *s);

int mf_session_unmount(struct mf_session *s);

void mf_session_free(struct mf_session *s);

int mf_session_info(struct mf_session *s, struct mf_info *out);

int mf_session_stats(struct mf_session *s, uint32_t reader, struct mf_reader_stats *out);

int mf_session_write_stats(struct mf_session *s, int fd);

const char *mf_session_mountpoint(struct mf_session *s);

const struct mf_call *mf_req_call(struct mf_req *req);

struct mf_session *mf_req_session(struct mf_req *req);

int mf_req_defer(struct mf_req *req);

int mf_req_interrupted(struct mf_req *req);

int mf_reply_err(struct mf_req *req, int error);
int mf_reply_entry(struct mf_req *req, const struct mf_entry *entry);
int mf_reply_attr(struct mf_req *req, const struct mf_attr *attr, uint64_t timeout_ns);
int mf_reply_open(struct mf_req *req, const struct mf_open *open);
int mf_reply_create(struct mf_req *req, const struct mf_entry *entry, const struct mf_open *open);

int mf_reply_data(struct mf_req *req, const void *data, uint64_t length);

int mf_reply_buffer(struct mf_req *req, uint64_t length);

int mf_reply_fd(struct mf_req *req, int fd, uint64_t offset, uint64_t length);
int mf_reply_write(struct mf_req *req, uint64_t written);
int mf_reply_statfs(struct mf_req *req, const struct mf_statfs *st);

int mf_reply_xattr_size(struct mf_req *req, uint64_t needed);
int mf_reply_lseek(struct mf_req *req, uint64_t offset);
int mf_reply_lock(struct mf_req *req, const struct mf_lock *lock);

void *mf_req_buffer(struct mf_req *req, uint64_t *length);

int mf_dirent_add(struct mf_req *req, const char *name, uint64_t name_len, uint64_t ino, uint32_t type, uint64_t next);

int mf_reply_dirents(struct mf_req *req);

int64_t mf_dirent_put(void *buf, uint64_t size, uint64_t used, const char *name, uint64_t name_len, uint64_t ino,
                      uint32_t type, uint64_t next);

int mf_notify_inval_inode(struct mf_session *s, uint64_t node, int64_t offset, int64_t length);

int mf_notify_inval_entry(struct mf_session *s, uint64_t parent, const char *name, uint64_t name_len);

struct mf_cmdline {
    uint32_t size;
    uint32_t show_help;
    const char *source;
    const char *mountpoint;
    struct mf_session_opts opts;
    char options[1024];
    char text[1024];
    ...;
};

int mf_cmdline_parse(int argc, char **argv, int wants_source, struct mf_cmdline *out);

int mf_main(int argc, char **argv, const struct mf_ops *ops, void *user);

/* testing.h */
struct mf_vkernel;

struct mf_vkernel_opts {
    uint32_t size;
    uint32_t minor;
    uint64_t flags;
    uint32_t clone_fail_at;
    uint32_t clone_errno;
    uint32_t uid, gid, pid;
    uint32_t queues;
    ...;
};

int mf_vkernel_new(const struct mf_vkernel_opts *opts, struct mf_vkernel **out);

void mf_vkernel_free(struct mf_vkernel *vk);

int mf_session_attach_vkernel(struct mf_session *s, struct mf_vkernel *vk, struct mf_error *err);
void mf_vkernel_set_timeout(struct mf_vkernel *vk, uint32_t milliseconds);

void mf_vkernel_unmount(struct mf_vkernel *vk);

void mf_vkernel_abort(struct mf_vkernel *vk);

uint64_t mf_vkernel_pending(struct mf_vkernel *vk);

uint64_t mf_vkernel_reads(struct mf_vkernel *vk, uint32_t channel);

uint64_t mf_vkernel_bad_replies(struct mf_vkernel *vk);

int mf_client_raw(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len, void *out,
                  uint64_t *out_len);

int mf_client_send(struct mf_vkernel *vk, uint32_t opcode, uint64_t node, const void *in, uint64_t in_len,
                   uint64_t *unique);

int mf_client_wait(struct mf_vkernel *vk, uint64_t unique, void *out, uint64_t *out_len);

int mf_client_interrupt(struct mf_vkernel *vk, uint64_t unique);

int mf_client_lookup(struct mf_vkernel *vk, uint64_t parent, const char *name, struct mf_entry *out);
int mf_client_forget(struct mf_vkernel *vk, uint64_t node, uint64_t nlookup);
int mf_client_getattr(struct mf_vkernel *vk, uint64_t node, struct mf_attr *out);
int mf_client_open(struct mf_vkernel *vk, uint64_t node, uint32_t flags, uint64_t *fh);
int64_t mf_client_read(struct mf_vkernel *vk, uint64_t node, uint64_t fh, void *buf, uint64_t length, uint64_t offset);
int64_t mf_client_write(struct mf_vkernel *vk, uint64_t node, uint64_t fh, const void *buf, uint64_t length,
                        uint64_t offset);
int mf_client_release(struct mf_vkernel *vk, uint64_t node, uint64_t fh);

int mf_client_stat(struct mf_vkernel *vk, const char *path, struct mf_attr *out);

int mf_client_read_file(struct mf_vkernel *vk, const char *path, void *buf, uint64_t *length);

int mf_client_write_file(struct mf_vkernel *vk, const char *path, const void *data, uint64_t length, uint32_t mode);

int mf_client_list(struct mf_vkernel *vk, const char *path, char *names, uint64_t *length);
int mf_client_readlink(struct mf_vkernel *vk, const char *path, char *target, uint64_t *length);
int mf_client_mkdir(struct mf_vkernel *vk, const char *path, uint32_t mode);
int mf_client_symlink(struct mf_vkernel *vk, const char *path, const char *target);
int mf_client_mknod(struct mf_vkernel *vk, const char *path, uint32_t mode, uint32_t rdev);
int mf_client_link(struct mf_vkernel *vk, const char *path, const char *newpath);
int mf_client_unlink(struct mf_vkernel *vk, const char *path);
int mf_client_rmdir(struct mf_vkernel *vk, const char *path);
int mf_client_rename(struct mf_vkernel *vk, const char *path, const char *newpath, uint32_t flags);
int mf_client_truncate(struct mf_vkernel *vk, const char *path, uint64_t length);
int mf_client_chmod(struct mf_vkernel *vk, const char *path, uint32_t mode);
int mf_client_statfs(struct mf_vkernel *vk, struct mf_statfs *out);
int mf_client_access(struct mf_vkernel *vk, const char *path, uint32_t mask);
int mf_client_setxattr(struct mf_vkernel *vk, const char *path, const char *name, const void *value, uint64_t length,
                       uint32_t flags);
int64_t mf_client_getxattr(struct mf_vkernel *vk, const char *path, const char *name, void *buf, uint64_t length);
int64_t mf_client_listxattr(struct mf_vkernel *vk, const char *path, char *buf, uint64_t length);
int mf_client_removexattr(struct mf_vkernel *vk, const char *path, const char *name);
