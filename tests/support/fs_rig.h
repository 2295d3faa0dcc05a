/* SPDX-License-Identifier: MIT */
/*
 * fs_rig.h - a session on a virtual kernel, whose handlers the test scripts. It runs on threads of its own, or
 * step by step on the test's: then every interleaving is the test's choice.
 */
#ifndef FS_RIG_H
#define FS_RIG_H

#include <stdatomic.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <manifuse/testing.h>

#include "fs_files.h"
#include "session/session.h"

struct fs_rig;

/* A script. FS_DEFAULT: what fs_answer() says. */
typedef int32_t (*fs_script)(struct mf_call *call, struct fs_rig *rig);
#define FS_DEFAULT INT32_MIN

#define FS_LOG_ROOM (1u << 16)

struct fs_rig {
    /* To be set between fs_init() and fs_connect(). */
    struct mf_session_opts opts;
    struct mf_vkernel_opts kernel;
    uint64_t implemented;
    fs_script script; /* NULL: the default for everything */
    void *data;       /* the script's */
    bool keeps;       /* handlers leave their thread entered, as those that need a language's lock do */

    struct mf_vkernel *vk;
    struct mf_session *s;
    struct fs_gate gate;
    pthread_t runner;
    bool running;
    int result; /* of mf_session_run() */

    _Atomic unsigned calls;
    _Atomic unsigned inside; /* handlers now */
    _Atomic unsigned left;   /* calls of the hook that ends that */
    _Atomic unsigned started, ended, destroyed;
    _Atomic unsigned inside_at_destroy;
    pthread_t destroyer;
    _Atomic unsigned interrupts; /* calls of the hook */
    _Atomic uint64_t interrupted_id;

    pthread_mutex_t lock; /* log */
    char log[FS_LOG_ROOM];
    size_t log_len;
};

/* Where handlers keep it: is this thread entered? */
extern _Thread_local bool fs_entered;

void fs_init(struct fs_rig *rig);
/* Make the session, without a kernel. */
void fs_make(struct fs_rig *rig);
/* Make kernel and session, and shake hands. */
void fs_connect(struct fs_rig *rig);
/* The same without the handshake. */
void fs_prepare(struct fs_rig *rig);
/* Connect if need be, and run on a thread. */
void fs_run(struct fs_rig *rig);
/* Wait for mf_session_run() to return; its result. */
int fs_join(struct fs_rig *rig);
int fs_stop(struct fs_rig *rig);
/* Stop if need be, check that nothing is left undone, free everything. */
void fs_end(struct fs_rig *rig);

/* Connect, and make the readers without threads. */
void fs_step_init(struct fs_rig *rig, uint32_t readers);
/* One message for that reader, handled by the calling thread; a test fails where there is none. */
void fs_step(struct fs_rig *rig, uint32_t reader);
/* The halves of it. */
struct mf__slot *fs_receive(struct fs_rig *rig, uint32_t reader);
void fs_dispatch(struct fs_rig *rig, uint32_t reader, struct mf__slot *slot);

/* Raw requests; `in` is everything after the header. */
uint64_t fs_send(struct fs_rig *rig, uint32_t opcode, uint64_t node, const void *in, size_t len);
int fs_wait(struct fs_rig *rig, uint64_t id);
int fs_ask(struct fs_rig *rig, uint32_t opcode, uint64_t node, const void *in, size_t len);
uint64_t fs_send_read(struct fs_rig *rig, uint64_t node, uint32_t size);
uint64_t fs_send_getattr(struct fs_rig *rig, uint64_t node);

/* `n` reads that wait at the gate, each in another handler, and their ids. */
void fs_occupy(struct fs_rig *rig, unsigned n, uint64_t *ids);
/* They go through, and have the right bytes. */
void fs_let_go(struct fs_rig *rig, unsigned n, const uint64_t *ids);

struct mf_reader_stats fs_stats(struct fs_rig *rig, uint32_t reader);
struct mf_info fs_info(struct fs_rig *rig);
/* Requests that came on rings of readers' own. */
uint64_t fs_on_own_rings(struct fs_rig *rig);
unsigned fs_logged(struct fs_rig *rig, const char *text); /* how many times */

/*
 * A test whose file has a `rig`, which is at its end when the test is. Not in a .fini: Criterion does not count
 * what fails there.
 */
#define FS_TEST(suite, name)                 \
    static void suite##_##name##_body(void); \
    Test(suite, name)                        \
    {                                        \
        suite##_##name##_body();             \
        fs_end(&rig);                        \
    }                                        \
    static void suite##_##name##_body(void)

/* Wait for something that another thread brings about. */
#define FS_UNTIL(condition)                               \
    do {                                                  \
        int fs_n = 0;                                     \
        for (; fs_n < 10000 && !(condition); fs_n++)      \
            usleep(1000);                                 \
        cr_assert(fs_n < 10000, "never: %s", #condition); \
    } while (0)

#endif
