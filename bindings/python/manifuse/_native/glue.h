/* SPDX-License-Identifier: MIT */
/*
 * glue.h - the C half of the Python binding, as the compiler and cffi read it (no preprocessor beyond the
 * guard's lines, which build.py takes away).
 *
 * Objects cross from Python as their address, which is what id() gives; the caller holds a reference for the
 * length of the call.
 */
#ifndef MF_PY_GLUE_H
#define MF_PY_GLUE_H

#include <stdint.h>

struct mf_call;
struct mf_error;
struct mf_negotiated;
struct mf_session;
struct mf_session_opts;
struct mf_py_binding;

/*
 * Make what the upcalls of one session need. `config` is the address of a tuple
 * (handlers, counts, views, normalise, fail, interrupted, reader_start, reader_end, destroy, Attr, Entry, Open,
 * Statfs, FileSlice, dispatcher): handlers is a tuple of 64 callables or None by operation, counts 64 bytes: how many
 * arguments each takes; views is true where write gets a memoryview. Returns NULL without memory.
 */
struct mf_py_binding *mf_py_binding_new(uintptr_t config, uint64_t implemented, uint64_t attr_timeout_ns);
/* Before mf_session_free(): requests that are kept have no session any more. Waits for answers that are under way. */
void mf_py_binding_close(struct mf_py_binding *binding);
/* After mf_session_free(). NULL is accepted. */
void mf_py_binding_free(struct mf_py_binding *binding);

/* mf_session_new_upcall() and mf_session_from_fd_initialized_upcall() with this binding's upcalls. */
int mf_py_session_new(struct mf_py_binding *binding, const struct mf_session_opts *opts, struct mf_session **out,
                      struct mf_error *err);
int mf_py_session_from_fd(struct mf_py_binding *binding, const struct mf_session_opts *opts, int fd,
                          const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err);

/* Put what reply.c has for request.py into the dict at this address: Kept, handled, keep. 0, or -1 without memory. */
int mf_py_names(uintptr_t names);

/* The call whose handler this thread runs, or NULL. */
const struct mf_call *mf_py_current(void);

/*
 * Nanoseconds of CPU time per upcall of `op` on a thread of its own, over `count` calls, with the engine left out: what
 * entering Python and leaving it costs. -1: an upcall failed.
 */
double mf_py_measure(struct mf_py_binding *binding, uint32_t op, uint64_t node, const char *name, uint64_t length,
                     uint64_t count);

#endif
