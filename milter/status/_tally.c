/* Counting one message: the compiled twin of `add_plainly` in counters.py, where the layout stands.
 *
 * Same cells, same numbers; tests/status/test_counters.py compares the two.  Here because each
 * message adds to some twenty cells, and each takes Python two numbers that it makes and forgets.
 *
 * Bounds: no cell beyond the memory is touched; what lies there raises.
 */

#include "../../keys/_extension.h"

#define FIRST 5    /* bits of microseconds that fall into the first bucket */
#define BUCKETS 21 /* of a histogram; behind them the sum */
#define STEPS 3    /* of sealing: begun, decided, signed */
#define MOST 1e18  /* microseconds; more is no time that anything took */

static bool add_to(const Py_buffer *memory, Py_ssize_t cell, uint64_t number) {
    uint64_t sum;
    if (cell < 0 || cell >= memory->len / (Py_ssize_t)sizeof sum) {
        PyErr_SetString(PyExc_IndexError, "there is no such cell");
        return false;
    }
    char *place = (char *)memory->buf + cell * (Py_ssize_t)sizeof sum;
    memcpy(&sum, place, sizeof sum);
    sum += number;
    memcpy(place, &sum, sizeof sum);
    return true;
}

static bool add_ones(const Py_buffer *memory, PyObject *ones) {
    for (Py_ssize_t at = 0; at < PyList_Size(ones); at++) {
        Py_ssize_t cell = PyLong_AsSsize_t(PyList_GetItem(ones, at));
        if ((cell == -1 && PyErr_Occurred()) || !add_to(memory, cell, 1)) return false;
    }
    return true;
}

/* `seconds` in the histogram at `place`. */
static bool add_time(const Py_buffer *memory, Py_ssize_t place, double seconds) {
    double micros = seconds * 1e6;
    uint64_t whole = micros > 0 ? (uint64_t)(micros < MOST ? micros : MOST) : 0;
    int bucket = (whole ? 64 - __builtin_clzll(whole) : 0) - FIRST;
    bucket = bucket < 0 ? 0 : bucket < BUCKETS ? bucket : BUCKETS - 1;
    return add_to(memory, place + bucket, 1) && add_to(memory, place + BUCKETS, whole);
}

/* When what was; 0 for a header section or an envelope of which it is not known. */
typedef struct {
    double envelope, header, ended, steps[STEPS], last;
} Laps;

static bool add_times(const Py_buffer *memory, Py_ssize_t place, const Laps *laps) {
    double header = laps->header != 0 ? laps->header : laps->ended;
    double envelope = laps->envelope != 0 ? laps->envelope : header;
    const double *steps = laps->steps, signed_at = steps[STEPS - 1];
    const double times[] = {header - envelope, laps->ended - header, steps[1] - steps[0],
                            signed_at - steps[1], laps->last - signed_at,
                            laps->last - laps->ended};
    for (size_t phase = 0; phase < sizeof times / sizeof *times; phase++, place += BUCKETS + 1)
        if (!add_time(memory, place, times[phase])) return false;
    return true;
}

static bool take_times(PyObject *given, Py_ssize_t from, double *times, Py_ssize_t count) {
    for (Py_ssize_t at = 0; at < count; at++) {
        times[at] = PyFloat_AsDouble(PyTuple_GetItem(given, from + at));
        if (PyErr_Occurred()) return false;
    }
    return true;
}

static bool is_tuple_of(PyObject *given, Py_ssize_t count) {
    return given && PyTuple_Check(given) && PyTuple_Size(given) == count;
}

static bool is_counted(PyObject *given) {
    return is_tuple_of(given, 2) && PyList_Check(PyTuple_GetItem(given, 0))
           && is_tuple_of(PyTuple_GetItem(given, 1), 4)
           && is_tuple_of(PyTuple_GetItem(PyTuple_GetItem(given, 1), 3), STEPS);
}

static PyObject *add(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 5 || !is_tuple_of(args[1], 2) || !is_counted(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "cells, two places, what is counted and two times are needed");
        return NULL;
    }
    PyObject *measures = PyTuple_GetItem(args[2], 1);
    Laps laps;
    if (!take_times(measures, 1, &laps.envelope, 1) || !take_times(measures, 2, &laps.header, 1)
        || !take_times(PyTuple_GetItem(measures, 3), 0, laps.steps, STEPS))
        return NULL;
    laps.ended = PyFloat_AsDouble(args[3]);
    laps.last = PyErr_Occurred() ? 0 : PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) return NULL;
    unsigned long long octets = PyLong_AsUnsignedLongLong(PyTuple_GetItem(measures, 0));
    Py_ssize_t where = PyErr_Occurred() ? 0 : PyLong_AsSsize_t(PyTuple_GetItem(args[1], 0));
    Py_ssize_t place = PyErr_Occurred() ? 0 : PyLong_AsSsize_t(PyTuple_GetItem(args[1], 1));
    Py_buffer memory;
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &memory, PyBUF_WRITABLE)) return NULL;
    bool done = add_ones(&memory, PyTuple_GetItem(args[2], 0)) && add_to(&memory, where, octets)
                && add_times(&memory, place, &laps);
    PyBuffer_Release(&memory);
    return done ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"add", FASTCALL(add),
     "add(cells, (where, place), counted, ended, last): count one message."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_tally", .m_methods = methods, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__tally(void) { return PyModuleDef_Init(&definition); }
