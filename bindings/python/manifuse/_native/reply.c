/* SPDX-License-Identifier: MIT */
/*
 * reply.c - the request that is handled, and requests that are kept: what Context and Reply of request.py begin with.
 *
 * cffi lets go of the interpreter's lock around each call, however short. A thread that does so while others want the
 * lock gets it back when one of these has had its turn: five such calls for one deferred answer made it wait five
 * times. So what only looks something up, or takes it, is done here, with the lock held; it is let go of once, for the
 * answer itself. The lock also guards all that is in here.
 */
#include "glue_private.h"

#include <errno.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

#define CLOSE_NAP_NS 100000

struct mf_py_reply {
    PyObject_HEAD unsigned long long unique;
    struct mf_req *req; /* NULL: answered, or the session is over */
    struct mf_py_binding *binding;
    uint32_t uses;                    /* threads that are in the engine with it */
    struct mf_py_reply *next, **prev; /* in the binding's list while req is set */
};

static void unlink_reply(struct mf_py_reply *r)
{
    r->req = NULL;
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
}

static PyObject *is_over(const struct mf_py_reply *r)
{
    return PyErr_Format(PyExc_RuntimeError, "request %llu is answered already, or its session is over", r->unique);
}

static bool waits_here(const struct mf_py_reply *r)
{
    return r->req && r->binding->pid == getpid();
}

/* Its address, as long as done() is not called: the session is not freed before. */
static PyObject *use(struct mf_py_reply *r)
{
    PyObject *address = PyLong_FromVoidPtr(r->req);

    if (address) {
        r->uses++;
        r->binding->answering++;
    }
    return address;
}

static PyObject *reply_look(PyObject *object, PyObject *ignored)
{
    struct mf_py_reply *r = (struct mf_py_reply *)object;

    (void)ignored;
    if (!waits_here(r))
        Py_RETURN_NONE;
    return use(r);
}

static PyObject *reply_take(PyObject *object, PyObject *ignored)
{
    struct mf_py_reply *r = (struct mf_py_reply *)object;
    PyObject *address;

    (void)ignored;
    if (!waits_here(r))
        return is_over(r);
    address = use(r);
    if (address)
        unlink_reply(r);
    return address;
}

static PyObject *reply_done(PyObject *object, PyObject *ignored)
{
    struct mf_py_reply *r = (struct mf_py_reply *)object;

    (void)ignored;
    if (r->uses) {
        r->uses--;
        r->binding->answering--;
    }
    Py_RETURN_NONE;
}

static PyObject *reply_answered(PyObject *object, void *ignored)
{
    (void)ignored;
    return PyBool_FromLong(!((struct mf_py_reply *)object)->req);
}

static void reply_dealloc(PyObject *object)
{
    struct mf_py_reply *r = (struct mf_py_reply *)object;
    PyTypeObject *type = Py_TYPE(object);

    if (r->req)
        unlink_reply(r);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef reply_methods[] = {
    { "_look", reply_look, METH_NOARGS, "The request's address until _done(); None: it is answered, or over." },
    { "_take", reply_take, METH_NOARGS, "The same for its answer: nobody else gets it. Raises RuntimeError." },
    { "_done", reply_done, METH_NOARGS, "The address is used no more." },
    { NULL, NULL, 0, NULL },
};
static PyMemberDef reply_members[] = {
    { "unique", T_ULONGLONG, offsetof(struct mf_py_reply, unique), READONLY, "Number of the request." },
    { NULL, 0, 0, 0, NULL },
};
static PyGetSetDef reply_getset[] = {
    { "answered", reply_answered, NULL, "An answer was given, or can no longer be.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};
static PyType_Slot reply_slots[] = {
    { Py_tp_dealloc, (void *)(uintptr_t)reply_dealloc },
    { Py_tp_methods, reply_methods },
    { Py_tp_members, reply_members },
    { Py_tp_getset, reply_getset },
    { 0, NULL },
};
static PyType_Spec reply_spec = {
    .name = "manifuse._native.Kept",
    .basicsize = sizeof(struct mf_py_reply),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = reply_slots,
};

/* ---- the request that is handled ------------------------------------------------------------------------------ */

static PyObject *handled(PyObject *module, PyObject *ignored)
{
    const struct mf_call *call = mf_py_self.call;

    (void)module;
    (void)ignored;
    if (!call)
        Py_RETURN_NONE;
    return Py_BuildValue("(OIIIIKIN)", mf_py_self.binding->dispatcher, call->uid, call->gid, call->pid, call->umask,
                         (unsigned long long)call->unique, call->reader, PyBool_FromLong(call->again));
}

/* keep(type, unique): a new Reply of that type; its errno where it cannot be kept, None where it is not handled here. */
static PyObject *keep(PyObject *base, PyObject *args)
{
    struct mf_py_binding *b = (struct mf_py_binding *)(uintptr_t)mf_py_self.binding;
    unsigned long long unique;
    struct mf_py_reply *r;
    PyTypeObject *type;
    int rc;

    if (!PyArg_ParseTuple(args, "OK", &type, &unique))
        return NULL;
    if (!PyType_Check((PyObject *)type) || !PyType_IsSubtype(type, (PyTypeObject *)base))
        return PyErr_Format(PyExc_TypeError, "no type of replies");
    if (!mf_py_self.call || mf_py_self.call->unique != unique)
        Py_RETURN_NONE;
    if (mf_py_self.deferred)
        return PyLong_FromLong(EALREADY);
    if (b->closed)
        return PyLong_FromLong(ENOTCONN);
    r = (struct mf_py_reply *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!r)
        return NULL;
    if (PyObject_SetAttr((PyObject *)r, b->s_dispatcher, b->dispatcher) < 0) {
        Py_DECREF(r);
        return NULL;
    }
    rc = mf_req_defer(mf_py_self.call->req);
    if (rc < 0) {
        Py_DECREF(r);
        return PyLong_FromLong(-rc);
    }
    mf_py_self.deferred = 1;
    r->unique = unique;
    r->req = mf_py_self.call->req;
    r->binding = b;
    r->next = b->kept;
    r->prev = &b->kept;
    if (r->next)
        r->next->prev = &r->next;
    b->kept = r;
    return (PyObject *)r;
}

static PyMethodDef functions[] = {
    { "handled", handled, METH_NOARGS,
      "(dispatcher, uid, gid, pid, umask, unique, reader, again) of the request that this thread handles, or None." },
    { "keep", keep, METH_VARARGS, "Answer it later." },
    { NULL, NULL, 0, NULL },
};

static int add(PyObject *names, const char *name, PyObject *object) /* takes the reference */
{
    int rc = object ? PyDict_SetItemString(names, name, object) : -1;

    Py_XDECREF(object);
    return rc;
}

int mf_py_names(uintptr_t names)
{
    PyGILState_STATE gil = PyGILState_Ensure(); /* cffi released it */
    PyObject *dict = (PyObject *)names;
    PyObject *type = PyType_FromSpec(&reply_spec);
    int rc = -1;

    if (type) {
        Py_INCREF(type);
        rc = add(dict, "Kept", type);
        for (PyMethodDef *f = functions; rc == 0 && f->ml_name; f++)
            rc = add(dict, f->ml_name, PyCFunction_NewEx(f, type, NULL));
        Py_DECREF(type);
    }
    if (rc < 0)
        PyErr_Clear();
    PyGILState_Release(gil);
    return rc;
}

void mf_py_binding_close(struct mf_py_binding *binding)
{
    const struct timespec nap = { .tv_nsec = CLOSE_NAP_NS };
    PyGILState_STATE gil = PyGILState_Ensure();

    binding->closed = true;
    while (binding->kept)
        unlink_reply(binding->kept);
    while (binding->answering) { /* microseconds away from its end */
        Py_BEGIN_ALLOW_THREADS nanosleep(&nap, NULL);
        Py_END_ALLOW_THREADS
    }
    PyGILState_Release(gil);
}
