/* What every extension in C begins with, and the frame around its types.
 *
 * To be included before the headers of others, as it says for which interpreters all are built: one
 * build for CPython 3.11 and all later ones (setup.cfg gives the wheels a tag that says the same).
 *
 * Promises: no memory but that of objects, no state; what can fail says so and sets an exception.
 * Does not: serve types that can be inherited from or that the garbage collector has to see.  Ours
 * are none: they hold nothing that could lead back to them.
 */

#ifndef CARBONSEAL_EXTENSION_H
#define CARBONSEAL_EXTENSION_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef unsigned char octet;

/* A function that takes its arguments as an array, as a table of methods wants it. */
#define FASTCALL(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

/* An object filled with zeros; NULL with an exception set. */
static inline void *new_object(PyTypeObject *type) { return PyType_GenericAlloc(type, 0); }

/* Give back an object of which the parts were given back: the last that its deallocation does. */
static inline void free_object(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_Free(object);
    Py_DECREF(type); /* each object holds the type that was made of a specification */
}

/* A named tuple of these parts; NULL with an exception set.  As tuple.__new__ makes it: calling its
   class runs a frame of Python. */
static inline PyObject *named_tuple(PyObject *kind, PyObject *parts) {
    Py_ssize_t count = PyTuple_Size(parts);
    PyObject *made = count < 0 ? NULL : PyType_GenericAlloc((PyTypeObject *)kind, count);
    for (Py_ssize_t at = 0; made && at < count; at++)
        PyTuple_SetItem(made, at, Py_NewRef(PyTuple_GetItem(parts, at)));
    return made;
}

/* A tuple of two, which it takes over; NULL with an exception set, also where one of them is NULL.
   Py_BuildValue is sixty cache lines of code for as much. */
static inline PyObject *pair(PyObject *first, PyObject *second) {
    PyObject *made = first && second ? PyTuple_New(2) : NULL;
    if (made) {
        PyTuple_SetItem(made, 0, first);
        PyTuple_SetItem(made, 1, second);
        return made;
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
    return NULL;
}

/* Make a type and put it into the module under its name; 0, or -1 with an exception set. */
static inline int add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return failed;
}

#endif
