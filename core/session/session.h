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

#include <manifuse/manifuse.h>

#include "base/base.h"
#include "mount/mount.h"
#include "session/crew.h"
#include "session/door.h"
#include "transport/ring.h"
#include "transport/transport.h"
#include "wire/wire.h"

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
