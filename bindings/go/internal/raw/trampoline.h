/* SPDX-License-Identifier: MIT */
/* What trampoline.c gives to session.go. Declarations only: files with //export may not define anything here. */
#ifndef MF_GO_TRAMPOLINE_H
#define MF_GO_TRAMPOLINE_H

#include <manifuse/testing.h>

/* The engine's `user` pointer is an index into Go's table of handlers, never a pointer that Go owns. */
int mf__go_session_new(uintptr_t handler, uint64_t implemented, const struct mf_session_opts *opts,
                       struct mf_session **out, struct mf_error *err);
int mf__go_session_from_fd(uintptr_t handler, uint64_t implemented, const struct mf_session_opts *opts, int fd,
                           const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err);

/* Call Go's upcall n times from a thread of its own and return the nanoseconds that all took: for benchmarks. */
int64_t mf__go_measure(uintptr_t handler, struct mf_call *call, uint64_t n);

#endif
