/* What comes over a connection, packet by packet: the compiled twin of incoming.py.
 *
 * Keeps the macros of a stage as they came, and looks for a name where it is asked for: most are
 * never asked for.  tests/milter/test_incoming.py compares the two.
 *
 * Bounds: a packet has at most LONGEST octets, kept macros MOST_OF_MACROS at a stage; time is linear
 * in the octets.
 */

#include "_incoming.h"

#define STAGE_COMMANDS "CHMRTNE" /* in the order in which a macro is looked for */

/* -1 for what is no stage. */
static int stage_of(int command) {
    for (int stage = 0; stage < STAGES; stage++)
        if (STAGE_COMMANDS[stage] == command) return stage;
    return -1;
}

/* ---- Packets --------------------------------------------------------------------------------- */

int keep_macros(Incoming *self, const char *payload, size_t size) {
    int stage = size ? stage_of((octet)*payload) : -1;
    if (stage < 0) return 0;
    size_t ends = 0;
    const char *end = payload + size;
    for (const char *at = payload; (at = memchr(at, 0, (size_t)(end - at))); at++) ends++;
    if (size > MOST_OF_MACROS || ends > 2 * MOST_MACROS) {
        PyErr_SetString(PyExc_ValueError, "more macros than an MTA has");
        return -1;
    }
    PyObject *kept = PyBytes_FromStringAndSize(payload, (Py_ssize_t)size);
    if (!kept) return -1;
    Py_XDECREF(self->stages[stage]);
    self->stages[stage] = kept;
    return 0;
}

static PyObject *found(long command, size_t end, const char *payload, size_t size) {
    PyObject *made = PyTuple_New(3);
    PyObject *parts[] = {PyLong_FromLong(command), PyLong_FromSize_t(end),
                         PyBytes_FromStringAndSize(payload, (Py_ssize_t)size)};
    for (Py_ssize_t place = 0; place < 3; place++) {
        if (made && !parts[place]) Py_CLEAR(made);
        if (made) PyTuple_SetItem(made, place, parts[place]);
        else Py_XDECREF(parts[place]);
    }
    return made;
}

static PyObject *next(PyObject *object, PyObject *const *args, Py_ssize_t given) {
    Incoming *self = (Incoming *)object;
    if (given != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "octets and a position are needed");
        return NULL;
    }
    const char *data = PyBytes_AsString(args[0]);
    size_t size = (size_t)PyBytes_Size(args[0]), at = PyLong_AsSize_t(args[1]);
    if (PyErr_Occurred()) return NULL;
    while (at <= size && size - at >= HEAD) {
        const octet *head = (const octet *)data + at;
        size_t length = length_at(head);
        if (!length || length > LONGEST + 1) {
            PyErr_Format(PyExc_ValueError, "a packet of %zu octets", length);
            return NULL;
        }
        if (length > size - at - PREFIX) break;
        const char *payload = data + at + HEAD;
        at += PREFIX + length;
        if (head[PREFIX] != 'D' || !self->is_open)
            return found(head[PREFIX], at, payload, length - 1);
        if (keep_macros(self, payload, length - 1)) return NULL;
    }
    return found(NOTHING, at, data, 0);
}

/* ---- Macros ---------------------------------------------------------------------------------- */

typedef struct {
    const char *from;
    Py_ssize_t size;
} Octets;

static bool is_it(Octets name, Octets sought) {
    return name.size == sought.size && !memcmp(name.from, sought.from, (size_t)name.size);
}

/* The next string and what is behind it; false where none begins. */
static bool split(Octets *rest, Octets *first) {
    if (rest->size < 0) return false;
    const char *end = rest->size ? memchr(rest->from, 0, (size_t)rest->size) : NULL;
    *first = (Octets){rest->from, end ? end - rest->from : rest->size};
    Py_ssize_t used = first->size + 1;
    /* Behind the last string none begins, behind its NUL an empty one. */
    *rest = end ? (Octets){end + 1, rest->size - used} : (Octets){rest->from, -1};
    return true;
}

/* The value of the last pair with this name; its size is -1 where there is none. */
static Octets look(PyObject *kept, Octets sought) {
    Octets rest = {PyBytes_AsString(kept) + 1, PyBytes_Size(kept) - 1};
    Octets name, value, last = {NULL, -1};
    while (split(&rest, &name) && split(&rest, &value))
        if (is_it(name, sought)) last = value;
    return last;
}

PyObject *macro_of(const Incoming *self, PyObject *given) {
    Octets sought;
    if (!(sought.from = PyUnicode_AsUTF8AndSize(given, &sought.size))) return NULL;
    char letter[] = {'{', sought.size ? *sought.from : 0, '}'};
    for (int stage = 0; stage < STAGES; stage++) {
        PyObject *kept = self->stages[stage];
        if (!kept) continue;
        Octets value = look(kept, sought);
        /* `i` and `{i}` are one macro (MILTER_README). */
        if (value.size < 0 && sought.size == 1)
            value = look(kept, (Octets){letter, sizeof letter});
        if (value.size >= 0) return PyUnicode_DecodeUTF8(value.from, value.size, NULL);
    }
    Py_RETURN_NONE;
}

static PyObject *macro(PyObject *self, PyObject *given) {
    return macro_of((const Incoming *)self, given);
}

static void forget_from(Incoming *self, int stage) {
    for (; stage < STAGES; stage++) Py_CLEAR(self->stages[stage]);
}

void forget_macros_after(Incoming *self, int command) {
    forget_from(self, stage_of(command) + 1);
}

static PyObject *forget_after(PyObject *self, PyObject *command) {
    long number = PyLong_AsLong(command);
    if (number == -1 && PyErr_Occurred()) return NULL;
    int stage = number < 0 || number > 255 ? -1 : stage_of((int)number);
    if (stage < 0) {
        PyErr_SetObject(PyExc_KeyError, command);
        return NULL;
    }
    forget_from((Incoming *)self, stage + 1);
    Py_RETURN_NONE;
}

static PyObject *forget_all(PyObject *self, PyObject *Py_UNUSED(none)) {
    forget_from((Incoming *)self, 0);
    Py_RETURN_NONE;
}

/* ---- The type -------------------------------------------------------------------------------- */

static PyObject *open_it(PyObject *self, PyObject *Py_UNUSED(none)) {
    ((Incoming *)self)->is_open = true;
    Py_RETURN_NONE;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    if (PyTuple_Size(args) || (named && PyDict_Size(named))) {
        PyErr_SetString(PyExc_TypeError, "nothing is taken");
        return NULL;
    }
    return new_object(type);
}

static void deallocate(PyObject *self) {
    forget_from((Incoming *)self, 0);
    free_object(self);
}

static PyMethodDef methods_of_one[] = {
    {"open", open_it, METH_NOARGS, "From now on macros are kept."},
    {"next", FASTCALL(next),
     "next(octets, at): the next packet's command, end and payload; macros before it are kept."},
    {"macro", macro, METH_O, "macro(name): its value, None where the MTA gave none."},
    {"forget_after", forget_after, METH_O, "forget_after(command): what later stages told."},
    {"forget_all", forget_all, METH_NOARGS, "Another client comes over the same connection."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What comes over one connection; see incoming.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods_of_one},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter._incoming.Incoming",
    .basicsize = sizeof(Incoming),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

/* ---- The module ------------------------------------------------------------------------------ */

static int fill(PyObject *module) {
    Known *known = PyModule_GetState(module);
    known->incoming = PyType_FromSpec(&spec);
    if (!known->incoming || PyModule_AddType(module, (PyTypeObject *)known->incoming)) return -1;
    return know_usual(module, known);
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    const Known *known = PyModule_GetState(module);
    Py_VISIT(known->incoming);
    Py_VISIT(known->gathered);
    return 0;
}

static int clear(PyObject *module) {
    Known *known = PyModule_GetState(module);
    Py_CLEAR(known->incoming);
    Py_CLEAR(known->gathered);
    for (size_t name = 0; name < NAMES; name++) Py_CLEAR(known->names[name]);
    return 0;
}

static PyMethodDef methods[] = {
    {"take", FASTCALL(take_usual),
     "take(session, incoming, octets, at, stage): see usual_message.py."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_incoming", .m_size = sizeof(Known),
    .m_methods = methods, .m_slots = parts, .m_traverse = traverse, .m_clear = clear,
};

PyMODINIT_FUNC PyInit__incoming(void) { return PyModuleDef_Init(&definition); }
