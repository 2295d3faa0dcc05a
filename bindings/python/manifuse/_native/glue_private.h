/* SPDX-License-Identifier: MIT */
/* glue_private.h - what the C files of the Python binding share. All of it under the interpreter's lock. */
#ifndef MF_PY_GLUE_PRIVATE_H
#define MF_PY_GLUE_PRIVATE_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x03090000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <manifuse/manifuse.h>

#include "glue.h"

#define MF_PY_OPS 64

struct mf_py_reply;

struct mf_py_binding {
    PyObject *handlers[MF_PY_OPS];
    uint8_t counts[MF_PY_OPS];
    uint64_t implemented;
    uint64_t attr_timeout_ns;
    int views;
    uint32_t readers;    /* threads that may still call */
    bool orphaned;       /* freed while handlers did not return: the last of them frees it */
    PyObject *normalise; /* normalise(op, result, limit) -> an answer of an exact type, or raises */
    PyObject *fail;      /* fail(op, node, exception) -> errno */
    PyObject *interrupted;
    PyObject *reader_start;
    PyObject *reader_end;
    PyObject *destroy;
    PyObject *attr_type;
    PyObject *entry_type;
    PyObject *open_type;
    PyObject *statfs_type;
    PyObject *slice_type;
    PyObject *dispatcher; /* Context and Reply have it */
    PyObject *s_packed;
    PyObject *s_errno;
    PyObject *s_release;
    PyObject *s_dispatcher;
    /* reply.c's */
    struct mf_py_reply *kept; /* requests that wait for their answer */
    uint32_t answering;       /* threads that are in the engine with one of these */
    bool closed;              /* nothing is kept any more */
    pid_t pid;                /* a forked child has no business with them */
};

/* What a thread has while it is in, or between, upcalls. */
struct mf_py_thread {
    PyThreadState *state;                /* detached; NULL: the thread is no reader, or has the lock: */
    int attached;                        /* between upcalls, too, until leave() */
    PyGILState_STATE gil;                /* for reader_end */
    struct mf_call *call;                /* whose handler runs */
    const struct mf_py_binding *binding; /* whose call that is */
    PyObject *keep;                      /* owns the bytes of the last answer until the next upcall */
    int deferred;
    uint32_t unlooked, in_vain; /* await_lock(): requests that do without it, and how many did the last time */
};
extern _Thread_local struct mf_py_thread mf_py_self __attribute__((tls_model("initial-exec")));

#endif
