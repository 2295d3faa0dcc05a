/* SPDX-License-Identifier: MIT */
/*
 * glue.c - upcalls into Python.
 *
 * A request needs few Python objects: its arguments and the answer. They are made and read here, with the
 * stable part of CPython's C interface, because that costs 0.1 to 0.2 microseconds per request where a Python
 * function between cffi's extern "Python" and the handler costs 0.6 to 1.2 (manifuse.testing.upcall_ns). What is
 * rare or long (odd types of answers, listings, exceptions that are no plain OSError) goes to Python functions
 * of _dispatch.py.
 *
 * Each reader thread has a thread state of Python's for all its life, so an upcall takes the interpreter's
 * lock and nothing else. No exception ever leaves an upcall: it becomes an errno.
 */
#include "glue_private.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define OPS MF_PY_OPS
#define ARGS 6
#define MAX_ERRNO 511  /* the protocol's limit */
#define LOCK_LOOKS 300 /* 5 to 15 microseconds */
#define LOCK_PASSES 63u
#ifndef PyBUF_READ
#define PyBUF_READ 0x100 /* PyMemoryView_FromMemory() is older in the stable interface than its constant */
#endif

/* Answers' wire forms, as types.py makes them. */
#define ATTR_BYTES sizeof(struct mf_attr)
#define ENTRY_BYTES (offsetof(struct mf_answer, attr) + sizeof(struct mf_attr))
#define OPEN_BYTES 16u
struct file_slice {
    int32_t fd;
    uint32_t reserved;
    uint64_t offset;
    uint64_t length;
};
_Static_assert(ATTR_BYTES == 88 && ENTRY_BYTES == 120, "types.py packs these");
_Static_assert(offsetof(struct mf_answer, backing_id) + 4 - offsetof(struct mf_answer, fh) == OPEN_BYTES, "likewise");

_Thread_local struct mf_py_thread mf_py_self;

/* ---- arguments ------------------------------------------------------------------------------------------ */

enum arg {
    NONE,
    NODE,
    NODE2,
    NAME,
    NAME2,
    FH,
    OFFSET,
    LENGTH,
    FLAGS,
    OP_FLAGS,
    MODE,
    RDEV,
    DATASYNC,
    DATA,  /* bytes, or a view where the filesystem wants that */
    VALUE, /* bytes */
    ATTR,
    VALID,
    LOCK_OWNER,
    ITEMS
};

enum answer { NOTHING, ENTRY, ATTRS, OPENED, CREATED, BYTES, TARGET, WRITTEN, STATFS, XATTR, FORGOTTEN };

/* Arguments in the order of _dispatch.OPERATIONS; a handler may take fewer. */
static const struct {
    uint8_t args[ARGS];
    uint8_t answer;
} ops[OPS] = {
    [MF_OP_LOOKUP] = { { NODE, NAME }, ENTRY },
    [MF_OP_FORGET] = { { ITEMS }, FORGOTTEN },
    [MF_OP_GETATTR] = { { NODE, FH }, ATTRS },
    [MF_OP_SETATTR] = { { NODE, FH, ATTR, VALID, LOCK_OWNER }, ATTRS },
    [MF_OP_READLINK] = { { NODE }, TARGET },
    [MF_OP_SYMLINK] = { { NODE, NAME, NAME2 }, ENTRY },
    [MF_OP_MKNOD] = { { NODE, NAME, MODE, RDEV }, ENTRY },
    [MF_OP_MKDIR] = { { NODE, NAME, MODE }, ENTRY },
    [MF_OP_UNLINK] = { { NODE, NAME }, NOTHING },
    [MF_OP_RMDIR] = { { NODE, NAME }, NOTHING },
    [MF_OP_RENAME] = { { NODE, NAME, NODE2, NAME2, FLAGS }, NOTHING },
    [MF_OP_LINK] = { { NODE, NODE2, NAME2 }, ENTRY },
    [MF_OP_OPEN] = { { NODE, FLAGS }, OPENED },
    [MF_OP_READ] = { { NODE, FH, OFFSET, LENGTH, FLAGS, LOCK_OWNER }, BYTES },
    [MF_OP_WRITE] = { { NODE, FH, OFFSET, DATA, FLAGS, LOCK_OWNER }, WRITTEN },
    [MF_OP_STATFS] = { { NODE }, STATFS },
    [MF_OP_RELEASE] = { { NODE, FH, FLAGS, LOCK_OWNER }, NOTHING },
    [MF_OP_FSYNC] = { { NODE, FH, DATASYNC }, NOTHING },
    [MF_OP_SETXATTR] = { { NODE, NAME, VALUE, FLAGS }, NOTHING },
    [MF_OP_GETXATTR] = { { NODE, NAME }, XATTR },
    [MF_OP_LISTXATTR] = { { NODE }, XATTR },
    [MF_OP_REMOVEXATTR] = { { NODE, NAME }, NOTHING },
    [MF_OP_FLUSH] = { { NODE, FH, LOCK_OWNER }, NOTHING },
    [MF_OP_OPENDIR] = { { NODE, FLAGS }, OPENED },
    [MF_OP_READDIR] = { { NODE, FH, OFFSET, LENGTH }, BYTES },
    [MF_OP_RELEASEDIR] = { { NODE, FH, FLAGS }, NOTHING },
    [MF_OP_FSYNCDIR] = { { NODE, FH, DATASYNC }, NOTHING },
    [MF_OP_ACCESS] = { { NODE, FLAGS }, NOTHING },
    [MF_OP_CREATE] = { { NODE, NAME, MODE, FLAGS }, CREATED },
};

static PyObject *number(uint64_t n)
{
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *name_of(const char *bytes, uint32_t length)
{
    return PyUnicode_DecodeFSDefaultAndSize(bytes, (Py_ssize_t)length);
}

static PyObject *none(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *forget_items(const struct mf_call *call)
{
    const struct mf_forget *items = call->data;
    PyObject *list = PyList_New((Py_ssize_t)call->length);

    for (uint64_t i = 0; list && i < call->length; i++) {
        PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)items[i].node, (unsigned long long)items[i].nlookup);

        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SetItem(list, (Py_ssize_t)i, pair);
    }
    return list;
}

static PyObject *argument(const struct mf_py_binding *b, const struct mf_call *call, uint8_t kind)
{
    switch ((enum arg)kind) {
    case NODE: return number(call->node);
    case NODE2: return number(call->node2);
    case NAME: return name_of(call->name, call->name_len);
    case NAME2: return name_of(call->name2, call->name2_len);
    case FH: return call->fh == MF_NO_FH ? none() : number(call->fh);
    case OFFSET: return number(call->offset);
    case LENGTH: return number(call->length);
    case FLAGS: return number(call->flags);
    case OP_FLAGS: return number(call->op_flags);
    case MODE: return number(call->mode);
    case RDEV: return number(call->rdev);
    case DATASYNC: return PyBool_FromLong(call->flags & 1);
    case DATA:
        if (b->views) /* the cast is for an old signature: PyBUF_READ makes it read-only */
            return PyMemoryView_FromMemory((char *)(uintptr_t)call->data, (Py_ssize_t)call->length, PyBUF_READ);
        /* fallthrough */
    case VALUE: return PyBytes_FromStringAndSize(call->data, (Py_ssize_t)call->length);
    case ATTR: return PyBytes_FromStringAndSize((const char *)&call->attr, (Py_ssize_t)sizeof(call->attr));
    case VALID: return number(call->valid);
    case LOCK_OWNER: return number(call->lock_owner);
    case ITEMS: return forget_items(call);
    case NONE: break;
    }
    PyErr_SetString(PyExc_SystemError, "no such argument");
    return NULL;
}

/* A view that outlives its handler would show memory that is used again: take it back. */
static void release_view(const struct mf_py_binding *b, PyObject *view)
{
    PyObject *type, *value, *trace, *done;

    PyErr_Fetch(&type, &value, &trace);
    done = PyObject_CallMethodObjArgs(view, b->s_release, NULL);
    if (!done)
        PyErr_WriteUnraisable(view);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

static PyObject *call_handler(const struct mf_py_binding *b, const struct mf_call *call)
{
    PyObject *argv[ARGS + 1] = { NULL };
    PyObject *result = NULL;
    unsigned count = b->counts[call->op], made = 0;

    while (made < count) {
        argv[made] = argument(b, call, ops[call->op].args[made]);
        if (!argv[made])
            break;
        made++;
    }
    if (made == count) /* the list of arguments ends at the first NULL */
        result = PyObject_CallFunctionObjArgs(b->handlers[call->op], argv[0], argv[1], argv[2], argv[3], argv[4],
                                              argv[5], NULL);
    if (b->views && call->op == MF_OP_WRITE && made > 3)
        release_view(b, argv[3]);
    while (made > 0)
        Py_DECREF(argv[--made]);
    return result;
}

/* ---- answers -------------------------------------------------------------------------------------------- */

static int is(PyObject *object, PyObject *type)
{
    return (PyObject *)Py_TYPE(object) == type;
}

/* The wire form of an answer: 1 = copied `n` bytes to `out`. */
static int copy_packed(const struct mf_py_binding *b, PyObject *answer, void *out, size_t n)
{
    PyObject *packed = PyObject_GetAttr(answer, b->s_packed);
    int ok = packed && PyBytes_CheckExact(packed) && (size_t)PyBytes_Size(packed) == n;

    if (ok)
        memcpy(out, PyBytes_AsString(packed), n);
    else
        PyErr_Clear();
    Py_XDECREF(packed);
    return ok;
}

/* An integer of 0 to `most`: 1 = stored. */
static int copy_number(PyObject *object, uint64_t most, uint64_t *out)
{
    unsigned long long n;

    if (!is(object, (PyObject *)&PyLong_Type))
        return 0;
    n = PyLong_AsUnsignedLongLong(object);
    if (n == ULLONG_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    *out = n;
    return n <= most;
}

static int take_entry(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    return is(answer, b->entry_type) && copy_packed(b, answer, &call->answer, ENTRY_BYTES) &&
           (call->answer.node != 0 || call->op == MF_OP_LOOKUP);
}

static int take_open(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    if (answer == Py_None)
        return 1;
    if (is(answer, b->open_type))
        return copy_packed(b, answer, &call->answer.fh, OPEN_BYTES);
    return copy_number(answer, UINT64_MAX - 1, &call->answer.fh);
}

static int take_attr(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    if (is(answer, b->attr_type)) {
        call->answer.attr_timeout_ns = b->attr_timeout_ns;
        return copy_packed(b, answer, &call->answer.attr, ATTR_BYTES);
    }
    return take_entry(b, call, answer);
}

/* The reply is sent from the object's own memory, which lives until this reader's next upcall. */
static void borrow(struct mf_call *call, PyObject *bytes)
{
    call->answer.data = PyBytes_AsString(bytes);
    call->answer.data_len = (uint64_t)PyBytes_Size(bytes);
    Py_INCREF(bytes);
    mf_py_self.keep = bytes;
}

static int take_bytes(struct mf_call *call, PyObject *answer, uint64_t most)
{
    PyObject *bytes = answer;

    if (PyBytes_CheckExact(answer))
        Py_INCREF(bytes);
    else if (is(answer, (PyObject *)&PyMemoryView_Type) || is(answer, (PyObject *)&PyByteArray_Type))
        bytes = PyBytes_FromObject(answer); /* its owner may change it before it is sent */
    else
        return 0;
    if (!bytes) {
        PyErr_Clear();
        return 0;
    }
    if ((uint64_t)PyBytes_Size(bytes) > most) {
        Py_DECREF(bytes);
        return 0;
    }
    borrow(call, bytes);
    Py_DECREF(bytes);
    return 1;
}

static int take_slice(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    struct file_slice slice;

    if (!is(answer, b->slice_type) || !copy_packed(b, answer, &slice, sizeof(slice)))
        return 0;
    call->answer.flags = MF_ANSWER_FD;
    call->answer.data_fd = slice.fd;
    call->answer.data_offset = slice.offset;
    call->answer.data_len = slice.length < call->length ? slice.length : call->length;
    Py_INCREF(answer);
    mf_py_self.keep = answer;
    return 1;
}

/* The value of an extended attribute, or its size; -ERANGE where the caller's memory is too small. */
static int take_xattr(struct mf_call *call, PyObject *answer, int32_t *rc)
{
    uint64_t n;

    if (!PyBytes_CheckExact(answer))
        return 0;
    n = (uint64_t)PyBytes_Size(answer);
    if (call->length == 0)
        call->answer.value = n;
    else if (n > call->length)
        *rc = -ERANGE;
    else
        borrow(call, answer);
    return 1;
}

static int take_statfs(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    PyObject *packed;

    if (!is(answer, b->statfs_type))
        return 0;
    packed = PyObject_GetAttr(answer, b->s_packed);
    if (!packed || !PyBytes_CheckExact(packed)) {
        PyErr_Clear();
        Py_XDECREF(packed);
        return 0;
    }
    borrow(call, packed);
    Py_DECREF(packed);
    return 1;
}

static int take_created(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer)
{
    return is(answer, (PyObject *)&PyTuple_Type) && PyTuple_Size(answer) == 2 &&
           take_entry(b, call, PyTuple_GetItem(answer, 0)) && take_open(b, call, PyTuple_GetItem(answer, 1));
}

/* Put an answer of the expected types into the call: 1 = done, 0 = it is something else. */
static int take(const struct mf_py_binding *b, struct mf_call *call, PyObject *answer, int32_t *rc)
{
    switch ((enum answer)ops[call->op].answer) {
    case NOTHING:
    case FORGOTTEN: return answer == Py_None;
    case ENTRY: return take_entry(b, call, answer);
    case ATTRS: return take_attr(b, call, answer);
    case OPENED: return take_open(b, call, answer);
    case CREATED: return take_created(b, call, answer);
    case BYTES:
        return take_bytes(call, answer, call->length) || (call->op == MF_OP_READ && take_slice(b, call, answer));
    case TARGET: return take_bytes(call, answer, PATH_MAX - 1);
    case WRITTEN: return copy_number(answer, call->length, &call->answer.value);
    case STATFS: return take_statfs(b, call, answer);
    case XATTR: return take_xattr(call, answer, rc);
    }
    return 0;
}

static uint64_t limit_of(const struct mf_call *call)
{
    return ops[call->op].answer == TARGET ? PATH_MAX - 1 : call->length;
}

/* ---- exceptions ----------------------------------------------------------------------------------------- */

/* The errno of an OSError that was made with one, and of a bare FileNotFoundError; else 0. */
static int plain_errno(const struct mf_py_binding *b, PyObject *type, PyObject *value)
{
    PyObject *object;
    long n = 0;

    if (!PyErr_GivenExceptionMatches(type, PyExc_OSError))
        return 0;
    object = PyObject_GetAttr(value, b->s_errno);
    if (!object) {
        PyErr_Clear();
        return 0;
    }
    if (object == Py_None && type == PyExc_FileNotFoundError) {
        n = ENOENT;
    } else if (is(object, (PyObject *)&PyLong_Type)) {
        n = PyLong_AsLong(object);
        if (n == -1)
            PyErr_Clear();
    }
    Py_DECREF(object);
    return n > 0 && n <= MAX_ERRNO ? (int)n : 0;
}

/* Turn the exception that is set into an errno. Python logs it and decides where it is no plain OSError. */
static int32_t failed(const struct mf_py_binding *b, const struct mf_call *call)
{
    PyObject *type, *value, *trace, *op = NULL, *node = NULL, *result = NULL;
    uint64_t n = 0;

    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (value)
        n = (uint64_t)plain_errno(b, type, value);
    if (n == 0 && value) {
        if (trace)
            PyException_SetTraceback(value, trace);
        op = number(call->op);
        node = number(call->node);
        if (op && node)
            result = PyObject_CallFunctionObjArgs(b->fail, op, node, value, NULL);
        if (!result)
            PyErr_WriteUnraisable(b->fail);
        else if (!copy_number(result, MAX_ERRNO, &n))
            n = 0;
    }
    Py_XDECREF(result);
    Py_XDECREF(op);
    Py_XDECREF(node);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return n == 0 ? -EIO : -(int32_t)n;
}

/* ---- upcalls -------------------------------------------------------------------------------------------- */

static void clear_answer(struct mf_call *call)
{
    memset(&call->answer, 0, sizeof(call->answer));
    Py_CLEAR(mf_py_self.keep);
}

static int32_t answered(const struct mf_py_binding *b, struct mf_call *call, PyObject *result)
{
    PyObject *op, *limit, *normal = NULL;
    int32_t rc = 0;

    if (take(b, call, result, &rc))
        return rc;
    clear_answer(call);
    op = number(call->op);
    limit = number(limit_of(call));
    if (op && limit)
        normal = PyObject_CallFunctionObjArgs(b->normalise, op, result, limit, NULL);
    Py_XDECREF(op);
    Py_XDECREF(limit);
    if (normal && !take(b, call, normal, &rc)) {
        clear_answer(call);
        PyErr_SetString(PyExc_SystemError, "normalise() gave no answer");
        Py_CLEAR(normal);
    }
    if (!normal)
        return failed(b, call);
    Py_DECREF(normal);
    return rc;
}

static int32_t enter(const struct mf_py_binding *b, struct mf_call *call)
{
    struct mf_call *outer = mf_py_self.call;
    const struct mf_py_binding *outer_binding = mf_py_self.binding;
    int outer_deferred = mf_py_self.deferred;
    PyObject *result;
    int32_t rc;

    Py_CLEAR(mf_py_self.keep);
    mf_py_self.call = call;
    mf_py_self.binding = b;
    mf_py_self.deferred = 0;
    result = call_handler(b, call);
    if (mf_py_self.deferred) { /* the answer is somebody else's now; the result does not count, an exception is told */
        if (!result)
            failed(b, call);
        rc = MF_ANSWER_LATER;
    } else {
        rc = result ? answered(b, call, result) : failed(b, call);
    }
    Py_XDECREF(result);
    mf_py_self.call = outer;
    mf_py_self.binding = outer_binding;
    mf_py_self.deferred = outer_deferred;
    return rc;
}

/* Whose thread state is current: until Python 3.11 that of whoever has the lock, later NULL for a thread that has it not. */
extern PyThreadState *_PyThreadState_UncheckedGet(void) __attribute__((weak));

static bool lock_is_taken(void)
{
    return _PyThreadState_UncheckedGet && _PyThreadState_UncheckedGet();
}

/*
 * Handlers, and threads that answer later, have the lock for some microseconds. Who is put to sleep before it leaves his CPU
 * idle, and that takes up to 40 to wake: so it is looked first, for a short while, whether it will be free. Who has it may
 * not be running, though, where clients have the CPUs: after each time in vain more requests do without, up to 63.
 */
static void await_lock(void)
{
    struct mf_py_thread *self = &mf_py_self;
    int looks = 0;

    if (!lock_is_taken())
        return;
    if (self->unlooked) {
        self->unlooked--;
        return;
    }
    while (lock_is_taken() && looks++ < LOCK_LOOKS)
        MF__RELAX();
    self->in_vain = looks < LOCK_LOOKS ? 0 : (self->in_vain * 2 + 1) & LOCK_PASSES;
    self->unlooked = self->in_vain;
}

static void take_lock(void)
{
    await_lock();
    PyEval_RestoreThread(mf_py_self.state);
    mf_py_self.state = NULL;
}

static int32_t upcall(struct mf_call *call, void *user)
{
    const struct mf_py_binding *b = user;
    PyGILState_STATE gil;
    int32_t rc;

    if (call->op >= OPS || !b->handlers[call->op])
        return -ENOSYS;
    if (mf_py_self.attached)
        return enter(b, call);
    if (mf_py_self.state) {
        take_lock();
        mf_py_self.attached = 1;
        return enter(b, call);
    }
    gil = PyGILState_Ensure();
    rc = enter(b, call);
    PyGILState_Release(gil);
    return rc;
}

/* While one request follows the other a reader keeps the interpreter's lock. */
static void leave(void *user)
{
    (void)user;
    if (!mf_py_self.attached)
        return;
    mf_py_self.attached = 0;
    mf_py_self.state = PyEval_SaveThread();
}

static void hook(PyObject *function, PyObject *argument_) /* takes the reference to the argument */
{
    PyObject *result;

    if (function != Py_None) {
        result = PyObject_CallFunctionObjArgs(function, argument_, NULL);
        if (!result)
            PyErr_WriteUnraisable(function);
        Py_XDECREF(result);
    }
    Py_XDECREF(argument_);
}

static void empty(struct mf_py_binding *b);

static void reader_start(struct mf_session *session, uint32_t reader, void *user)
{
    struct mf_py_binding *b = user;

    (void)session;
    mf_py_self.gil = PyGILState_Ensure();
    b->readers++;
    hook(b->reader_start, number(reader));
    mf_py_self.state = PyEval_SaveThread();
}

static void reader_end(struct mf_session *session, uint32_t reader, void *user)
{
    struct mf_py_binding *b = user;

    (void)session;
    if (!mf_py_self.state)
        return;
    PyEval_RestoreThread(mf_py_self.state);
    mf_py_self.state = NULL;
    Py_CLEAR(mf_py_self.keep);
    hook(b->reader_end, number(reader));
    if (--b->readers == 0 && b->orphaned)
        empty(b);
    PyGILState_Release(mf_py_self.gil);
}

static void destroy(void *user)
{
    const struct mf_py_binding *b = user;
    PyGILState_STATE gil = PyGILState_Ensure();

    hook(b->destroy, NULL);
    PyGILState_Release(gil);
}

static void interrupted(struct mf_session *session, uint64_t unique, void *user)
{
    const struct mf_py_binding *b = user;
    PyGILState_STATE gil = PyGILState_Ensure();

    (void)session;
    hook(b->interrupted, number(unique));
    PyGILState_Release(gil);
}

/* ---- set-up --------------------------------------------------------------------------------------------- */

static PyObject *item(PyObject *tuple, Py_ssize_t i)
{
    PyObject *object = PyTuple_GetItem(tuple, i); /* borrowed; NULL with an error set */

    Py_XINCREF(object);
    return object;
}

static int fill(struct mf_py_binding *b, PyObject *config)
{
    PyObject **fields[] = { &b->normalise,  &b->fail,        &b->interrupted, &b->reader_start,
                            &b->reader_end, &b->destroy,     &b->attr_type,   &b->entry_type,
                            &b->open_type,  &b->statfs_type, &b->slice_type,  &b->dispatcher };
    PyObject *handlers = PyTuple_GetItem(config, 0), *counts = PyTuple_GetItem(config, 1);

    if (!handlers || !counts || PyTuple_Size(handlers) != OPS || PyBytes_Size(counts) != OPS)
        return 0;
    memcpy(b->counts, PyBytes_AsString(counts), OPS);
    b->views = PyObject_IsTrue(PyTuple_GetItem(config, 2));
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        *fields[i] = item(config, (Py_ssize_t)i + 3);
        if (!*fields[i])
            return 0;
    }
    for (Py_ssize_t i = 0; i < OPS; i++) {
        if (b->counts[i] > ARGS)
            return 0;
        if (PyTuple_GetItem(handlers, i) != Py_None)
            b->handlers[i] = item(handlers, i);
    }
    b->s_packed = PyUnicode_InternFromString("_packed");
    b->s_errno = PyUnicode_InternFromString("errno");
    b->s_release = PyUnicode_InternFromString("release");
    b->s_dispatcher = PyUnicode_InternFromString("_dispatcher");
    return b->s_packed && b->s_errno && b->s_release && b->s_dispatcher;
}

static void empty(struct mf_py_binding *b)
{
    PyObject **fields[] = { &b->normalise,  &b->fail,        &b->interrupted, &b->reader_start,
                            &b->reader_end, &b->destroy,     &b->attr_type,   &b->entry_type,
                            &b->open_type,  &b->statfs_type, &b->slice_type,  &b->dispatcher,
                            &b->s_packed,   &b->s_errno,     &b->s_release,   &b->s_dispatcher };

    for (size_t i = 0; i < OPS; i++)
        Py_CLEAR(b->handlers[i]);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        Py_CLEAR(*fields[i]);
    PyMem_Free(b);
}

struct mf_py_binding *mf_py_binding_new(uintptr_t config, uint64_t implemented, uint64_t attr_timeout_ns)
{
    PyGILState_STATE gil = PyGILState_Ensure(); /* cffi released it */
    struct mf_py_binding *b = PyMem_Calloc(1, sizeof(*b));

    if (b) {
        b->implemented = implemented;
        b->attr_timeout_ns = attr_timeout_ns;
        b->pid = getpid();
        if (!fill(b, (PyObject *)config)) {
            PyErr_Clear();
            empty(b);
            b = NULL;
        }
    }
    PyGILState_Release(gil);
    return b;
}

void mf_py_binding_free(struct mf_py_binding *binding)
{
    PyGILState_STATE gil;

    if (!binding)
        return;
    gil = PyGILState_Ensure();
    binding->orphaned = true;
    if (binding->readers == 0)
        empty(binding);
    PyGILState_Release(gil);
}

static struct mf_upcall_ops upcalls(const struct mf_py_binding *b)
{
    return (struct mf_upcall_ops){
        .size = sizeof(struct mf_upcall_ops),
        .flags = MF_UPCALL_EXCLUSIVE, /* the interpreter's lock */
        .implemented = b->implemented,
        .upcall = upcall,
        .reader_start = reader_start,
        .reader_end = reader_end,
        .destroy = destroy,
        .interrupted = interrupted,
        .leave = leave,
    };
}

int mf_py_session_new(struct mf_py_binding *binding, const struct mf_session_opts *opts, struct mf_session **out,
                      struct mf_error *err)
{
    struct mf_upcall_ops table = upcalls(binding);

    return mf_session_new_upcall(&table, binding, opts, out, err);
}

int mf_py_session_from_fd(struct mf_py_binding *binding, const struct mf_session_opts *opts, int fd,
                          const struct mf_negotiated *neg, struct mf_session **out, struct mf_error *err)
{
    struct mf_upcall_ops table = upcalls(binding);

    return mf_session_from_fd_initialized_upcall(&table, binding, opts, fd, neg, out, err);
}

const struct mf_call *mf_py_current(void)
{
    return mf_py_self.call;
}

/* ---- measuring ------------------------------------------------------------------------------------------ */

struct measure {
    struct mf_py_binding *binding;
    struct mf_call call;
    uint64_t count;
    double ns;
};

static double clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now); /* others may use the machine */
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void *measure_thread(void *arg)
{
    struct measure *m = arg;
    double start = 0;
    int32_t rc = 0;

    reader_start(NULL, 0, m->binding);
    for (uint64_t i = 0; i < m->count + m->count / 8 && (rc >= 0 || rc == -ENOENT); i++) {
        if (i == m->count / 8)
            start = clock_ns();
        memset(&m->call.answer, 0, sizeof(m->call.answer));
        rc = upcall(&m->call, m->binding);
        leave(m->binding);
    }
    m->ns = rc < 0 && rc != -ENOENT ? -1 : (clock_ns() - start) / (double)m->count;
    reader_end(NULL, 0, m->binding);
    return NULL;
}

double mf_py_measure(struct mf_py_binding *binding, uint32_t op, uint64_t node, const char *name, uint64_t length,
                     uint64_t count)
{
    struct measure m = { .binding = binding, .count = count, .ns = -1 };
    pthread_t thread;

    m.call = (struct mf_call){ .size = sizeof(m.call),
                               .op = op,
                               .node = node,
                               .fh = 1,
                               .offset = 65536,
                               .length = length,
                               .name = name,
                               .name_len = (uint32_t)strlen(name),
                               .name2 = name,
                               .name2_len = (uint32_t)strlen(name) };
    m.call.data = calloc(1, length ? length : 1);
    if (m.call.data && pthread_create(&thread, NULL, measure_thread, &m) == 0)
        pthread_join(thread, NULL);
    free((void *)(uintptr_t)m.call.data);
    return m.ns;
}
