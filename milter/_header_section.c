/* The header section of one message on its way in: the compiled twin of header_section.py.
 *
 * Keeps the same fields, counts the same octets, answers the same and stops at the same packet;
 * tests/milter/test_header_section.py compares the two.  Here because there are more fields than all
 * other events together, and as this one a field needs no frame of the interpreter.
 *
 * Bounds: those of header_section.py; time is linear in the octets of names and values.
 */

#include "_fault.h"

#define MAX_FIELDS 20000
#define MAX_HEADER_OCTETS (8 * 1024 * 1024)
#define MAX_JOINED 1024
#define AROUND 3 /* octets of a field that are not name or value: colon, CR, LF */
#define PREFIX 4 /* octets of a packet's length, which counts what comes after them */
#define HEAD 5   /* octets before a packet's payload: the length and the command */

typedef struct {
    PyObject_HEAD
    PyObject *fields; /* list of (str, bytes): nothing that could lead back here */
    Py_ssize_t size;
    Py_ssize_t longest; /* name and value of one field */
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
    Py_ssize_t size = PyBytes_Size(value), length = PyUnicode_GetLength(name) + size;
    if (length > self->longest) self->longest = length;
    self->size += length + AROUND;
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

/* ---- Fields by name -------------------------------------------------------------------------- */

static char lower(char sign) { return sign >= 'A' && sign <= 'Z' ? sign + ('a' - 'A') : sign; }

/* The octets of a name; NULL: it is not all ASCII, or (with an exception set) memory is short. */
static const char *ascii(PyObject *name, Py_ssize_t *size) {
    const char *octets = PyUnicode_AsUTF8AndSize(name, size);
    if (!octets && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) PyErr_Clear();
    return octets && *size == PyUnicode_GetLength(name) ? octets : NULL;
}

/* Whether `name` in lower case is `wanted`, whose octets are `own`, or NULL; -1: an exception. */
static int is_called(PyObject *name, PyObject *wanted, const char *own, Py_ssize_t own_size) {
    Py_ssize_t size;
    const char *octets = ascii(name, &size);
    if (octets) {
        if (!own || size != own_size) return 0;
        while (size && lower(octets[size - 1]) == own[size - 1]) size--;
        return !size;
    }
    if (PyErr_Occurred()) return -1;
    /* Some letters beyond ASCII have a lower case within. */
    PyObject *lowered = PyObject_CallMethod(name, "lower", NULL);
    int is_same = lowered ? PyObject_RichCompareBool(lowered, wanted, Py_EQ) : -1;
    Py_XDECREF(lowered);
    return is_same;
}

/* Our own reference to the field at `i`; NULL, with an exception set: somebody put another thing
   there. */
static PyObject *field_at(HeaderSection *self, Py_ssize_t i) {
    PyObject *pair = PyList_GetItem(self->fields, i);
    if (pair && PyTuple_Check(pair) && PyTuple_Size(pair) == 2
        && PyUnicode_Check(PyTuple_GetItem(pair, 0)))
        return Py_NewRef(pair);
    if (pair) PyErr_SetString(PyExc_TypeError, "a field is a name and a value");
    return NULL;
}

static PyObject *values(PyObject *given, PyObject *name) {
    HeaderSection *self = (HeaderSection *)given;
    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "a name of str is needed");
        return NULL;
    }
    Py_ssize_t size = 0;
    const char *octets = ascii(name, &size);
    PyObject *found = PyErr_Occurred() ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; found && i < PyList_Size(self->fields); i++) {
        PyObject *pair = field_at(self, i);
        int is_it = pair ? is_called(PyTuple_GetItem(pair, 0), name, octets, size) : -1;
        if (is_it == 1 && PyList_Append(found, PyTuple_GetItem(pair, 1))) is_it = -1;
        Py_XDECREF(pair);
        if (is_it < 0) Py_CLEAR(found);
    }
    return found;
}

static PyObject *joined_names(PyObject *given, PyObject *Py_UNUSED(none)) {
    HeaderSection *self = (HeaderSection *)given;
    char joined[MAX_JOINED + 1], *end = joined; /* one more: the line end after the last */
    Py_ssize_t count = PyList_Size(self->fields);
    if (!count) Py_RETURN_NONE;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = field_at(self, i);
        if (!pair) return NULL;
        Py_ssize_t size;
        const char *octets = ascii(PyTuple_GetItem(pair, 0), &size);
        bool is_short = octets && size < joined + sizeof joined - end
                        && !memchr(octets, '\n', (size_t)size);
        for (Py_ssize_t at = 0; is_short && at < size; at++) *end++ = lower(octets[at]);
        Py_DECREF(pair);
        if (PyErr_Occurred()) return NULL;
        if (!is_short) Py_RETURN_NONE;
        *end++ = '\n';
    }
    return PyUnicode_FromStringAndSize(joined, end - joined - 1);
}

/* ---- The callback ---------------------------------------------------------------------------- */

/* What an object of another type than ours wants done with a field. */
static int hand_on(PyObject *header, PyObject *name, PyObject *value) {
    PyObject *done = PyObject_CallMethod(header, "add", "OO", name, value);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Hands a field to the message that `session` is at, if it is at one; -1 when a fault is nobody's. */
static int take(const Parts *parts, PyObject *session, PyObject *name, PyObject *value) {
    PyObject *header = PyObject_GetAttr(session, parts->header);
    int failed = !header                                      ? -1
                 : header == Py_None                          ? 0
                 : (PyObject *)Py_TYPE(header) == parts->type ? keep((HeaderSection *)header, name,
                                                                     value)
                                                              : hand_on(header, name, value);
    Py_XDECREF(header);
    return failed ? tell_fault(session, "field") : 0;
}

static PyObject *field(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    const Parts *parts = PyModule_GetState(module);
    if (given != 3) {
        PyErr_SetString(PyExc_TypeError, "a context, a name and a value are needed");
        return NULL;
    }
    PyObject *session = PyObject_CallMethodObjArgs(args[0], parts->getpriv, NULL);
    PyObject *answer = session ? PyObject_GetAttr(session, parts->field_answer) : NULL;
    if (answer && take(parts, session, args[1], args[2])) Py_CLEAR(answer);
    Py_XDECREF(session);
    return answer;
}

/* ---- Packets --------------------------------------------------------------------------------- */

/* 1: the field was handed over; 0: its packet is broken; -1: as `take`. */
static int take_packet(const Parts *parts, PyObject *session, const char *payload, size_t size) {
    const char *border = memchr(payload, 0, size);
    /* The value's own NUL is one more than the name's. */
    if (!border || border == payload + size - 1 || payload[size - 1]) return 0;
    PyObject *name = PyUnicode_DecodeUTF8(payload, border - payload, NULL);
    if (!name) {
        PyErr_Clear(); /* whoever asked looks at this packet again, and says what is wrong */
        return 0;
    }
    const char *begin = border + 1, *end = payload + size - 1;
    PyObject *value = PyBytes_FromStringAndSize(begin, end - begin);
    int failed = value ? take(parts, session, name, value) : tell_fault(session, "field");
    Py_DECREF(name);
    Py_XDECREF(value);
    return failed ? -1 : 1;
}

static PyObject *fields(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    const Parts *parts = PyModule_GetState(module);
    if (given != 3 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "a session, octets and a position are needed");
        return NULL;
    }
    const char *data = PyBytes_AsString(args[1]);
    size_t size = (size_t)PyBytes_Size(args[1]), at = PyLong_AsSize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    while (at <= size && size - at >= HEAD) {
        const octet *head = (const octet *)data + at;
        size_t length =
            (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
        if (!length || length > size - at - PREFIX) break;
        const char *payload = data + at + HEAD;
        if (head[PREFIX] == 'L') {
            int taken = take_packet(parts, args[0], payload, length - 1);
            if (taken < 0) return NULL;
            if (!taken) break;
        } else if (head[PREFIX] != 'D' || length < 2 || *payload != 'L')
            break;
        at += PREFIX + length;
    }
    return PyLong_FromSize_t(at);
}

/* ---- The type -------------------------------------------------------------------------------- */

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    if (PyTuple_Size(args) || (named && PyDict_Size(named))) {
        PyErr_SetString(PyExc_TypeError, "nothing is taken");
        return NULL;
    }
    HeaderSection *self = new_object(type);
    if (!self) return NULL;
    self->fields = PyList_New(0);
    if (!self->fields) Py_CLEAR(self);
    return (PyObject *)self;
}

static void deallocate(PyObject *self) {
    Py_XDECREF(((HeaderSection *)self)->fields);
    free_object(self);
}

static PyObject *get_fields(PyObject *self, void *Py_UNUSED(none)) {
    return Py_NewRef(((HeaderSection *)self)->fields);
}

static PyObject *get_size(PyObject *self, void *Py_UNUSED(none)) {
    return PyLong_FromSsize_t(((HeaderSection *)self)->size);
}

static PyObject *get_longest(PyObject *self, void *Py_UNUSED(none)) {
    return PyLong_FromSsize_t(((HeaderSection *)self)->longest);
}

static PyObject *get_is_oversized(PyObject *self, void *Py_UNUSED(none)) {
    return PyBool_FromLong(((HeaderSection *)self)->is_oversized);
}

static PyMethodDef section_methods[] = {
    {"add", FASTCALL(add), "One header field."},
    {"values", values, METH_O, "values(name): those of all fields called so."},
    {"joined_names", joined_names, METH_NOARGS, "All names in lower case, or None."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef section_facts[] = {
    {"fields", get_fields, NULL, "In order, values exactly as received.", NULL},
    {"size", get_size, NULL, "Octets as it goes out.", NULL},
    {"longest", get_longest, NULL, "Name and value of the longest field.", NULL},
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
    {"field", FASTCALL(field),
     "field(context, name, value): libmilter's callback of a header field."},
    {"fields", FASTCALL(fields),
     "fields(session, octets, at): where the run of packets of header fields ends."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_header_section", .m_size = sizeof(Parts),
    .m_methods = methods, .m_slots = module_parts, .m_traverse = traverse, .m_clear = clear,
};

PyMODINIT_FUNC PyInit__header_section(void) { return PyModuleDef_Init(&definition); }
