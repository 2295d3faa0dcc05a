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

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/ring.h"

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
