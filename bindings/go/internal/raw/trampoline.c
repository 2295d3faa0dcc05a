/* SPDX-License-Identifier: MIT */
#include "trampoline.h"

#include <pthread.h>
#include <time.h>

#include "_cgo_export.h"

static int32_t upcall(struct mf_call *call, void *user)
{
    return mf__go_upcall(call, (uintptr_t)user);
}

static void reader_start(struct mf_session *session, uint32_t reader, void *user)
{
    (void)session;
    mf__go_reader_start((uintptr_t)user, reader);
}

static void reader_end(struct mf_session *session, uint32_t reader, void *user)
{
    (void)session;
    mf__go_reader_end((uintptr_t)user, reader);
}

static void destroy(void *user)
{
    mf__go_destroy((uintptr_t)user);
}

static void interrupted(struct mf_session *session, uint64_t unique, void *user)
{
    (void)session;
    mf__go_interrupted((uintptr_t)user, unique);
}

static void log_line(uint32_t level, const char *text, void *user)
{
    mf__go_log((uintptr_t)user, level, (char *)text);
}

static const struct mf_upcall_ops *fill(struct mf_upcall_ops *ops, uint64_t implemented)
{
    *ops = (struct mf_upcall_ops){
        .size = sizeof(*ops),
        .implemented = implemented,
        .upcall = upcall,
        .reader_start = reader_start,
        .reader_end = reader_end,
        .destroy = destroy,
        .interrupted = interrupted,
    };
    return ops;
}

int mf__go_session_new(uintptr_t handler, uint64_t implemented, const struct mf_session_opts *opts,
                       struct mf_session **out, struct mf_error *err)
{
    struct mf_session_opts o = *opts;
    struct mf_upcall_ops ops;

    o.log = log_line;
    o.log_user = (void *)handler;
    return mf_session_new_upcall(fill(&ops, implemented), (void *)handler, &o, out, err);
}

int mf__go_session_from_fd(uintptr_t handler, uint64_t implemented, const struct mf_session_opts *opts, int fd,
                           const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err)
{
    struct mf_session_opts o = *opts;
    struct mf_upcall_ops ops;

    o.log = log_line;
    o.log_user = (void *)handler;
    return mf_session_from_fd_initialized_upcall(fill(&ops, implemented), (void *)handler, &o, fd, neg, out, err);
}

struct measure {
    uintptr_t handler;
    struct mf_call *call;
    uint64_t n;
    int64_t ns;
};

static void *measure(void *arg)
{
    struct measure *m = arg;
    struct timespec from, to;

    for (uint64_t i = 0; i < 100; i++)
        upcall(m->call, (void *)m->handler);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (uint64_t i = 0; i < m->n; i++)
        upcall(m->call, (void *)m->handler);
    clock_gettime(CLOCK_MONOTONIC, &to);
    m->ns = (int64_t)(to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
    return NULL;
}

int64_t mf__go_measure(uintptr_t handler, struct mf_call *call, uint64_t n)
{
    struct measure m = {.handler = handler, .call = call, .n = n};
    pthread_t thread;

    if (pthread_create(&thread, NULL, measure, &m) != 0)
        return -1;
    pthread_join(thread, NULL);
    return m.ns;
}
