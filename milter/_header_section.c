/* The header section of one message on its way in: the compiled twin of header_section.py.
 *
 * Keeps the same fields, counts the same octets and answers the same; tests/milter/
 * test_header_section.py compares the two.  Here because the callback of a field is called more
 * often than all others together, and as this one it needs no frame of the interpreter.
 *
 * Bounds: those of header_section.py; time is linear in the octets of the values.
 */

#define Py_LIMITED_API 0x030B0000 /* one build for CPython 3.11 and all later ones */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <string.h>

#define MAX_FIELDS 20000
#define MAX_HEADER_OCTETS (8 * 1024 * 1024)
#define AROUND 3 /* octets of a field that are not name or value: colon, CR, LF */

typedef struct {
    PyObject_HEAD
    PyObject *fields; /* list of (str, bytes): nothing that could lead back here */
    Py_ssize_t size;
    bool is_oversized;
} HeaderSection;

/* Names that are looked up for each field, and the type. */
typedef struct {
    PyObject *type, *getpriv, *header, *field_answer;
} Parts;

/* ---- One field ------------------------------------------------------------------------------- */

/* One CR goes out for every folding that the MTA shows as a bare LF. */
static Py_ssize_t foldings(const char *octets, Py_ssize_t size) {
    Py_ssize_t count = 0;
    const char *end = octets + size;
    while (octets < end && (octets = memchr(octets, '\n', (size_t)(end - octets)))) {
        count++;
        octets++;
    }
    return count;
}

/* 0, or -1 with an exception set. */
static int keep(HeaderSection *self, PyObject *name, PyObject *value) {
    if (!PyUnicode_Check(name) || !PyBytes_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a name of str and a value of bytes are needed");
        return -1;
    }
    if (PyList_Size(self->fields) >= MAX_FIELDS || self->size >= MAX_HEADER_OCTETS) {
        self->is_oversized = true;
        return 0;
    }
    PyObject *pair = PyTuple_Pack(2, name, value);
    if (!pair) return -1;
    int failed = PyList_Append(self->fields, pair);
    Py_DECREF(pair);
    if (failed) return -1;
    Py_ssize_t size = PyBytes_Size(value);
    self->size += PyUnicode_GetLength(name) + size + AROUND;
    self->size += foldings(PyBytes_AsString(value), size);
    return 0;
}

static PyObject *add(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "a name and a value are needed");
        return NULL;
    }
    if (keep((HeaderSection *)self, args[0], args[1])) return NULL;
    Py_RETURN_NONE;
}

/* ---- The callback ---------------------------------------------------------------------------- */

/* Hands the exception that is set to session.fail; -1 when that fails, too. */
static int tell(PyObject *session) {
    PyObject *type, *fault, *traceback;
    PyErr_Fetch(&type, &fault, &traceback);
    PyErr_NormalizeException(&type, &fault, &traceback);
    PyObject *done = NULL;
    if (!PyErr_GivenExceptionMatches(type, PyExc_Exception))
        PyErr_Restore(type, fault, traceback); /* the end of the process is nobody's to keep */
    else {
        if (traceback) PyException_SetTraceback(fault, traceback);
        done = PyObject_CallMethod(session, "fail", "sO", "field", fault);
        Py_XDECREF(type);
        Py_XDECREF(fault);
        Py_XDECREF(traceback);
    }
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* What an object of another type than ours wants done with a field. */
static int hand_on(PyObject *header, PyObject *name, PyObject *value) {
    PyObject *done = PyObject_CallMethod(header, "add", "OO", name, value);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static PyObject *field(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    const Parts *parts = PyModule_GetState(module);
    if (given != 3) {
        PyErr_SetString(PyExc_TypeError, "a context, a name and a value are needed");
        return NULL;
    }
    PyObject *session = PyObject_CallMethodObjArgs(args[0], parts->getpriv, NULL);
    PyObject *answer = session ? PyObject_GetAttr(session, parts->field_answer) : NULL;
    if (answer) {
        PyObject *header = PyObject_GetAttr(session, parts->header);
        int failed = !header                                      ? -1
                     : header == Py_None                          ? 0
                     : (PyObject *)Py_TYPE(header) == parts->type ? keep((HeaderSection *)header,
                                                                         args[1], args[2])
                                                                  : hand_on(header, args[1],
                                                                            args[2]);
        Py_XDECREF(header);
        if (failed && tell(session)) Py_CLEAR(answer);
    }
    Py_XDECREF(session);
    return answer;
}

/* ---- The type -------------------------------------------------------------------------------- */

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    if (PyTuple_Size(args) || (named && PyDict_Size(named))) {
        PyErr_SetString(PyExc_TypeError, "nothing is taken");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    HeaderSection *self = (HeaderSection *)allocate(type, 0); /* filled with zeros */
    if (!self) return NULL;
    self->fields = PyList_New(0);
    if (!self->fields) Py_CLEAR(self);
    return (PyObject *)self;
}

static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_XDECREF(((HeaderSection *)self)->fields);
    release(self);
    Py_DECREF(type);
}

static PyObject *get_fields(PyObject *self, void *Py_UNUSED(none)) {
    return Py_NewRef(((HeaderSection *)self)->fields);
}

static PyObject *get_size(PyObject *self, void *Py_UNUSED(none)) {
    return PyLong_FromSsize_t(((HeaderSection *)self)->size);
}

static PyObject *get_is_oversized(PyObject *self, void *Py_UNUSED(none)) {
    return PyBool_FromLong(((HeaderSection *)self)->is_oversized);
}

static PyMethodDef section_methods[] = {
    {"add", (PyCFunction)(void (*)(void))add, METH_FASTCALL, "One header field."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef section_facts[] = {
    {"fields", get_fields, NULL, "In order, values exactly as received.", NULL},
    {"size", get_size, NULL, "Octets as it goes out.", NULL},
    {"is_oversized", get_is_oversized, NULL, "There were more fields than are kept.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The header section of one message; see header_section.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, section_methods},
    {Py_tp_getset, section_facts},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter._header_section.HeaderSection",
    .basicsize = sizeof(HeaderSection),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

/* ---- The module ------------------------------------------------------------------------------ */

static int fill(PyObject *module) {
    Parts *parts = PyModule_GetState(module);
    parts->type = PyType_FromSpec(&spec);
    parts->getpriv = PyUnicode_InternFromString("getpriv");
    parts->header = PyUnicode_InternFromString("header");
    parts->field_answer = PyUnicode_InternFromString("field_answer");
    if (!parts->type || !parts->getpriv || !parts->header || !parts->field_answer) return -1;
    return PyModule_AddType(module, (PyTypeObject *)parts->type);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    const Parts *parts = PyModule_GetState(module);
    Py_VISIT(parts->type);
    return 0;
}

static int clear(PyObject *module) {
    Parts *parts = PyModule_GetState(module);
    Py_CLEAR(parts->type);
    Py_CLEAR(parts->getpriv);
    Py_CLEAR(parts->header);
    Py_CLEAR(parts->field_answer);
    return 0;
}

static PyMethodDef methods[] = {
    {"field", (PyCFunction)(void (*)(void))field, METH_FASTCALL,
     "field(context, name, value): libmilter's callback of a header field."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_header_section", .m_size = sizeof(Parts),
    .m_methods = methods, .m_slots = module_parts, .m_traverse = traverse, .m_clear = clear,
};

PyMODINIT_FUNC PyInit__header_section(void) { return PyModuleDef_Init(&definition); }
