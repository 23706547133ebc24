/* A fault in what a session is told of, handed to the session itself, as `session` in Python does.
 */

#ifndef CARBONSEAL_FAULT_H
#define CARBONSEAL_FAULT_H

#include "../keys/_extension.h"

/* Hands the exception that is set to session.fail; -1 when that fails, too. */
static inline int tell_fault(PyObject *session, const char *callback) {
    PyObject *type, *fault, *traceback;
    PyErr_Fetch(&type, &fault, &traceback);
    PyErr_NormalizeException(&type, &fault, &traceback);
    PyObject *done = NULL;
    if (!PyErr_GivenExceptionMatches(type, PyExc_Exception))
        PyErr_Restore(type, fault, traceback); /* the end of the process is nobody's to keep */
    else {
        if (traceback) PyException_SetTraceback(fault, traceback);
        done = PyObject_CallMethod(session, "fail", "sO", callback, fault);
        Py_XDECREF(type);
        Py_XDECREF(fault);
        Py_XDECREF(traceback);
    }
    Py_XDECREF(done);
    return done ? 0 : -1;
}

#endif
