/* The signed header fields in canonical form: the compiled half of canonical_header.py.
 *
 * Answers for header sections in which nothing is odd, octet by octet as the Python there does;
 * for all others (an octet that may be disputed, CRLF folding, white space after a name, no From)
 * the answer is None, and Python decides: refusals are made in one place.
 * tests/keys/test_canonical_header.py compares the two.  Here because each message pays for it.
 *
 * `names` are those that are signed, each once and with its length before it, From first; `order` is
 * h= in their numbers, an octet each.
 *
 * Bounds: time is linear in the octets of the fields, and for each of them in the names that are
 * signed; what is written is at most twice as long.
 */

#include "_extension.h"

#define MOST_PLACES 256 /* names that are signed, each counted once */
#define AROUND 3        /* octets of a field that are not name or value: colon, CR, LF */

typedef struct {
    const char *name, *value;
    Py_ssize_t name_size, value_size;
    Py_ssize_t above; /* the next field of this name towards the top; -1: none */
} Field;

static char lower(char sign) { return sign >= 'A' && sign <= 'Z' ? sign + ('a' - 'A') : sign; }

static bool is_blank(char sign) { return sign == ' ' || sign == '\t'; }

/* Whether all verifiers read the value alike, and it is folded with LF. */
static bool is_plain(const char *value, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < size; i++) {
        octet sign = (octet)value[i];
        if (sign > '\r' || sign == '\t') continue;
        if (sign == '\n' && i + 1 < size && is_blank(value[i + 1])) continue;
        if (sign == '\n' || sign == '\0' || sign >= '\v') return false;
    }
    return true;
}

static char *put(char *to, const char *octets, Py_ssize_t size) {
    memcpy(to, octets, (size_t)size);
    return to + size;
}

static char *put_simple(char *to, const Field *field) {
    to = put(to, field->name, field->name_size);
    *to++ = ':';
    for (Py_ssize_t i = 0; i < field->value_size; i++) {
        if (field->value[i] == '\n') *to++ = '\r';
        *to++ = field->value[i];
    }
    return put(to, "\r\n", 2);
}

static char *put_relaxed(char *to, const Field *field) {
    for (Py_ssize_t i = 0; i < field->name_size; i++) *to++ = lower(field->name[i]);
    *to++ = ':';
    const char *start = to;
    bool had_space = false;
    for (Py_ssize_t i = 0; i < field->value_size; i++) {
        char sign = field->value[i];
        if (is_blank(sign) || sign == '\n') {
            had_space = true;
        } else {
            if (had_space && to != start) *to++ = ' ';
            had_space = false;
            *to++ = sign;
        }
    }
    return put(to, "\r\n", 2);
}

/* The number of the name among those that are signed; -1: it is not; -2: Python must look at it.
   A search through all of them: they are in one piece of memory, five lines of the cache where a
   dict and its keys are fifty. */
static Py_ssize_t place_of(const Field *field, const octet *names, Py_ssize_t size) {
    if (!field->name_size) return -1;
    if (is_blank(field->name[field->name_size - 1])) return -2;
    Py_ssize_t place = 0;
    for (const octet *end = names + size; names < end; names += 1 + names[0], place++) {
        Py_ssize_t same = 0, length = names[0];
        if (length != field->name_size || length >= end - names) continue;
        while (same < length && lower(field->name[same]) == (char)names[1 + same]) same++;
        if (same == length) return place;
    }
    return -1;
}

/* Fills in `field`; whether that is possible: a tuple of a name, text or bytes, and bytes.  Text
   with lone surrogates is left to Python. */
static bool look_at(PyObject *pair, Field *field) {
    if (!pair || !PyTuple_Check(pair) || PyTuple_Size(pair) != 2) return false;
    PyObject *name = PyTuple_GetItem(pair, 0), *value = PyTuple_GetItem(pair, 1);
    if (!PyBytes_Check(value)) return false;
    if (PyBytes_Check(name)) {
        field->name = PyBytes_AsString(name);
        field->name_size = PyBytes_Size(name);
    } else if (PyUnicode_Check(name)) {
        field->name = PyUnicode_AsUTF8AndSize(name, &field->name_size);
        if (!field->name) {
            if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) PyErr_Clear();
            return false;
        }
    } else {
        return false;
    }
    field->value = PyBytes_AsString(value);
    field->value_size = PyBytes_Size(value);
    return true;
}

/* Links the fields of each name, the lowest in `lowest`.  Returns the octets that are needed at
   most; -1: Python must look; -2: an exception is set. */
static Py_ssize_t arrange(PyObject *given, const octet *names, Py_ssize_t names_size,
                          Field *fields, Py_ssize_t count, Py_ssize_t *lowest, int place_count) {
    Py_ssize_t needed = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Field *field = fields + i;
        if (!look_at(PyList_GetItem(given, i), field)) return PyErr_Occurred() ? -2 : -1;
        Py_ssize_t place = place_of(field, names, names_size);
        if (place == -1) continue;
        if (place < 0 || place >= place_count || !is_plain(field->value, field->value_size))
            return -1;
        field->above = lowest[place];
        lowest[place] = i;
        needed += field->name_size + 2 * field->value_size + AROUND;
    }
    return place_count && lowest[0] >= 0 ? needed : -1;
}

/* Takes the fields from the bottom up as `order` says.  Returns the end. */
static char *put_all(char *to, const octet *order, Py_ssize_t count, const Field *fields,
                     Py_ssize_t *lowest, bool is_relaxed) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int place = order[i];
        if (lowest[place] < 0) continue;
        const Field *field = fields + lowest[place];
        lowest[place] = field->above;
        to = is_relaxed ? put_relaxed(to, field) : put_simple(to, field);
    }
    return to;
}

static PyObject *canonical(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given) {
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "fields, names, order and is_relaxed are needed");
        return NULL;
    }
    char *names, *order;
    Py_ssize_t names_size, order_size;
    if (PyBytes_AsStringAndSize(args[1], &names, &names_size)
        || PyBytes_AsStringAndSize(args[2], &order, &order_size))
        return NULL;
    if (!PyList_Check(args[0])) Py_RETURN_NONE;
    int is_relaxed = PyObject_IsTrue(args[3]);
    if (is_relaxed < 0) return NULL;
    Py_ssize_t count = PyList_Size(args[0]), lowest[MOST_PLACES];
    int place_count = 0;
    for (Py_ssize_t i = 0; i < order_size; i++)
        if ((octet)order[i] >= place_count) place_count = (octet)order[i] + 1;
    for (int i = 0; i < place_count; i++) lowest[i] = -1;
    Field *fields = PyMem_Malloc((size_t)count * sizeof(Field) + 1);
    if (!fields) return PyErr_NoMemory();

    PyObject *made = NULL;
    Py_ssize_t needed = arrange(args[0], (octet *)names, names_size, fields, count, lowest,
                                place_count);
    if (needed == -1) {
        made = Py_NewRef(Py_None);
    } else if (needed >= 0) {
        char *octets = PyMem_Malloc((size_t)needed);
        if (octets) {
            char *end = put_all(octets, (octet *)order, order_size, fields, lowest,
                                is_relaxed);
            made = PyBytes_FromStringAndSize(octets, end - octets);
        } else {
            PyErr_NoMemory();
        }
        PyMem_Free(octets);
    }
    PyMem_Free(fields);
    return made;
}

static PyMethodDef methods[] = {
    {"canonical", FASTCALL(canonical),
     "canonical(fields, names, order, is_relaxed): the octets, or None where Python must look."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_canonical_header", .m_methods = methods, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__canonical_header(void) { return PyModuleDef_Init(&definition); }
