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

#include <stdint.h>
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
