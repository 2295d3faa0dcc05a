/* SPDX-License-Identifier: MIT */
/*
 * slow_python.h - the handlers of handlers/bare.py under a loop without engine: the least that a server in Python can
 * do. The loop becomes an extension module for them:
 *
 *   bare.run(lookup, getattr, read, defer, arguments)   serve, with the loop's arguments; ends the process
 *   bare.answer(who, unique, length)                    what defer(who, unique, length) put off; from any thread
 *
 * lookup(parent, name) gives the node, 0 where there is none; getattr(node) something that is not looked at; and
 * read(node, size) the bytes, which count: the answer holds as many zeros.
 */
#ifndef SLOW_PYTHON_H
#define SLOW_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define main loop_main
int loop_main(int argc, char **argv);

#define MAX_ARGS 16

static struct {
    PyObject *lookup, *getattr, *read, *defer;
    slow_answer_fn *answer; /* one for all that are put off */
} python;

/* Take the interpreter's lock. Each thread keeps its thread state. */
static void python_take(void)
{
    static __thread PyThreadState *state;

    if (state) {
        PyEval_RestoreThread(state);
    } else {
        PyGILState_Ensure();
        state = PyThreadState_Get();
    }
}

static void python_give(void)
{
    PyEval_SaveThread();
}

/* What a handler returned, as a number. There is nobody to tell of an exception. */
static long python_result(PyObject *result, bool is_number)
{
    long n = !result                 ? -1
             : is_number             ? PyLong_AsLong(result)
             : PyBytes_Check(result) ? (long)PyBytes_GET_SIZE(result)
                                     : 0;

    if (PyErr_Occurred()) {
        PyErr_Print();
        exit(1);
    }
    Py_DECREF(result);
    return n;
}

static int python_lookup(uint64_t parent, const char *name, void *body)
{
    long node = python_result(PyObject_CallFunction(python.lookup, "Ks", (unsigned long long)parent, name), true);

    return null_entry(parent, (uint64_t)node, body);
}

/* The module's beginning was ours. */
static void slow_begin(void)
{
}

static void slow_defer(slow_answer_fn *answer, void *who, uint64_t unique, uint64_t length)
{
    python.answer = answer;
    python_take();
    python_result(PyObject_CallFunction(python.defer, "KKK", (unsigned long long)(uintptr_t)who,
                                        (unsigned long long)unique, (unsigned long long)length),
                  false);
    python_give();
}

static int slow_answer(uint32_t opcode, uint64_t node, const void *args, const char *name, void *body)
{
    int rc = opcode == FUSE_LOOKUP ? 0 : null_answer(opcode, node, args, name, body);

    if (slow_is_deferred(opcode, node) || (opcode != FUSE_LOOKUP && opcode != FUSE_GETATTR && opcode != FUSE_READ))
        return rc;
    python_take();
    if (opcode == FUSE_LOOKUP)
        rc = python_lookup(node, name, body);
    else if (opcode == FUSE_GETATTR)
        python_result(PyObject_CallFunction(python.getattr, "K", (unsigned long long)node), false);
    else
        rc = (int)python_result(PyObject_CallFunction(python.read, "Ki", (unsigned long long)node, rc), false);
    python_give();
    return rc;
}

static PyObject *bare_run(PyObject *module, PyObject *args)
{
    PyObject *list;
    char *argv[MAX_ARGS + 1] = { "bare" };
    int argc = 1;

    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOO!", &python.lookup, &python.getattr, &python.read, &python.defer, &PyList_Type,
                          &list))
        return NULL;
    for (; argc <= PyList_GET_SIZE(list) && argc < MAX_ARGS; argc++)
        argv[argc] = (char *)(uintptr_t)PyUnicode_AsUTF8(PyList_GET_ITEM(list, argc - 1));
    python_give();
    _exit(loop_main(argc, argv));
}

static PyObject *bare_answer(PyObject *module, PyObject *args)
{
    unsigned long long who, unique, length;

    (void)module;
    if (!PyArg_ParseTuple(args, "KKK", &who, &unique, &length))
        return NULL;
    Py_BEGIN_ALLOW_THREADS python.answer((void *)(uintptr_t)who, unique, length);
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyMethodDef bare_methods[] = {
    { "run", bare_run, METH_VARARGS, NULL },
    { "answer", bare_answer, METH_VARARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef bare_module = { PyModuleDef_HEAD_INIT, .m_name = "bare", .m_size = -1,
                                          .m_methods = bare_methods };

PyMODINIT_FUNC PyInit_bare(void)
{
    slow_timers(); /* threads in Python inherit it */
    return PyModule_Create(&bare_module);
}

#endif
