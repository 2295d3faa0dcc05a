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

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

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
