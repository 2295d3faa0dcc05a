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

#include <pthread.h>
#include <sys/uio.h>
#include <time.h>

#include <manifuse/testing.h>

#include "transport/ring.h"
#include "wire/wire.h"

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
