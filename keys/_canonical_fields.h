/* The signed header fields in canonical form, for the extensions that need them: _canonical_header.c
 * hands them to Python, _held_key.c hashes them.
 *
 * Answers for header sections in which nothing is odd, octet by octet as canonical_header.py does;
 * for all others (an octet that may be disputed, CRLF folding, white space after a name, no From)
 * it does not answer, and Python decides: refusals are made in one place.
 *
 * Bounds: time is linear in the octets of the fields, and for each of them in the names that are
 * signed; what is written is at most twice as long.
 */

#ifndef CARBONSEAL_CANONICAL_FIELDS_H
#define CARBONSEAL_CANONICAL_FIELDS_H

#include "_extension.h"

#define MOST_PLACES 256   /* names that are signed, each counted once */
#define AROUND 3          /* octets of a field that are not name or value: colon, CR, LF */
#define USUAL_FIELDS 32   /* of a header section that needs no memory of its own here */
#define USUAL_OCTETS 4096 /* likewise, once canonical */

typedef struct {
    const char *octets;
    Py_ssize_t size;
} Piece;

/* What is signed: `names` each once and with its length before it, From first; `order` is h= in
   their numbers, an octet each. */
typedef struct {
    Piece names, order;
    bool is_relaxed;
} Selection;

/* What came of it. */
typedef struct {
    Piece signed_fields;
    char usual[USUAL_OCTETS], *more; /* where they are: in `usual` if `more` is NULL */
} Canonical;

typedef enum { FAULT = -1, PYTHON_MUST, IS_MADE } Answer; /* at FAULT an exception is set */

static inline bool read_piece(PyObject *given, Piece *piece) {
    return !PyBytes_AsStringAndSize(given, (char **)&piece->octets, &piece->size);
}

static inline char *put(char *to, const void *from, size_t size) {
    memcpy(to, from, size);
    return to + size;
}

/* --- one field --- */

typedef struct {
    const char *name, *value;
    Py_ssize_t name_size, value_size;
    Py_ssize_t above; /* the next field of this name towards the top; -1: none */
} Field;

static inline char lower(char sign) {
    return sign >= 'A' && sign <= 'Z' ? sign + ('a' - 'A') : sign;
}

static inline bool is_blank(char sign) { return sign == ' ' || sign == '\t'; }

/* Without an end before the end: so a compiler looks at many octets in one step. */
static inline bool has_control(const char *value, Py_ssize_t size) {
    octet found = 0;
    for (Py_ssize_t i = 0; i < size; i++) found |= (octet)value[i] < ' ';
    return found;
}

/* Whether all verifiers read the value alike, and it is folded with LF. */
static inline bool is_plain(const char *value, Py_ssize_t size) {
    if (!has_control(value, size)) return true;
    for (Py_ssize_t i = 0; i < size; i++) {
        octet sign = (octet)value[i];
        if (sign > '\r' || sign == '\t') continue;
        if (sign == '\n' && i + 1 < size && is_blank(value[i + 1])) continue;
        if (sign == '\n' || sign == '\0' || sign >= '\v') return false;
    }
    return true;
}

static inline char *put_simple_field(char *to, const Field *field) {
    to = put(to, field->name, (size_t)field->name_size);
    *to++ = ':';
    for (Py_ssize_t i = 0; i < field->value_size; i++) {
        if (field->value[i] == '\n') *to++ = '\r';
        *to++ = field->value[i];
    }
    return put(to, "\r\n", 2);
}

static inline char *put_relaxed_field(char *to, const Field *field) {
    for (Py_ssize_t i = 0; i < field->name_size; i++) *to++ = lower(field->name[i]);
    *to++ = ':';
    const char *start = to;
    bool had_space = false;
    for (const char *at = field->value, *end = at + field->value_size; at < end;) {
        if (is_blank(*at) || *at == '\n') {
            had_space = true;
            at++;
            continue;
        }
        if (had_space && to != start) *to++ = ' ';
        had_space = false;
        do *to++ = *at++; /* a word, in one loop that asks little */
        while (at < end && (octet)*at > ' ');
    }
    return put(to, "\r\n", 2);
}

/* The number of the name among those that are signed; -1: it is not; -2: Python must look at it.
   A search through all of them: they are in one piece of memory, five lines of the cache where a
   dict and its keys are fifty. */
static inline Py_ssize_t place_of(const Field *field, const Piece *names) {
    if (!field->name_size) return -1;
    if (is_blank(field->name[field->name_size - 1])) return -2;
    Py_ssize_t place = 0;
    const octet *at = (const octet *)names->octets;
    for (const octet *end = at + names->size; at < end; at += 1 + at[0], place++) {
        Py_ssize_t same = 0, length = at[0];
        if (length != field->name_size || length >= end - at) continue;
        while (same < length && lower(field->name[same]) == (char)at[1 + same]) same++;
        if (same == length) return place;
    }
    return -1;
}

/* Fills in `field`; whether that is possible: a tuple of a name, text or bytes, and bytes.  Text
   with lone surrogates is left to Python. */
static inline bool look_at(PyObject *pair, Field *field) {
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

/* --- all of them --- */

/* Links the fields of each name, the lowest in `lowest`.  Returns the octets that are needed at
   most; -1: Python must look; -2: an exception is set. */
static inline Py_ssize_t arrange(PyObject *given, const Piece *names, Field *fields,
                                 Py_ssize_t count, Py_ssize_t *lowest, int place_count) {
    Py_ssize_t needed = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Field *field = fields + i;
        if (!look_at(PyList_GetItem(given, i), field)) return PyErr_Occurred() ? -2 : -1;
        Py_ssize_t place = place_of(field, names);
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
static inline char *put_all(char *to, const Selection *selection, const Field *fields,
                            Py_ssize_t *lowest) {
    for (Py_ssize_t i = 0; i < selection->order.size; i++) {
        int place = (octet)selection->order.octets[i];
        if (lowest[place] < 0) continue;
        const Field *field = fields + lowest[place];
        lowest[place] = field->above;
        to = selection->is_relaxed ? put_relaxed_field(to, field) : put_simple_field(to, field);
    }
    return to;
}

static inline Answer arrange_and_put(Field *fields, Py_ssize_t count, PyObject *given,
                                     const Selection *selection, Canonical *made) {
    Py_ssize_t lowest[MOST_PLACES];
    int place_count = 0;
    for (Py_ssize_t i = 0; i < selection->order.size; i++) {
        int place = (octet)selection->order.octets[i];
        if (place >= place_count) place_count = place + 1;
    }
    for (int i = 0; i < place_count; i++) lowest[i] = -1;
    Py_ssize_t needed = arrange(given, &selection->names, fields, count, lowest, place_count);
    if (needed < 0) return needed == -1 ? PYTHON_MUST : FAULT;
    if (needed > USUAL_OCTETS && !(made->more = PyMem_Malloc((size_t)needed))) {
        PyErr_NoMemory();
        return FAULT;
    }
    char *octets = made->more ? made->more : made->usual;
    made->signed_fields.octets = octets;
    made->signed_fields.size = put_all(octets, selection, fields, lowest) - octets;
    return IS_MADE;
}

/* Of `given`, what canonical_header.plainly takes.  `made` is to be given to `drop_canonical` once
   it is made, and to nobody otherwise. */
static inline Answer make_canonical(PyObject *given, const Selection *selection, Canonical *made) {
    made->more = NULL;
    if (!PyList_Check(given)) return PYTHON_MUST;
    Py_ssize_t count = PyList_Size(given);
    Field usual[USUAL_FIELDS];
    if (count <= USUAL_FIELDS) return arrange_and_put(usual, count, given, selection, made);
    Field *fields = PyMem_Malloc((size_t)count * sizeof(Field));
    if (!fields) {
        PyErr_NoMemory();
        return FAULT;
    }
    Answer answer = arrange_and_put(fields, count, given, selection, made);
    PyMem_Free(fields);
    return answer;
}

static inline void drop_canonical(Canonical *made) { PyMem_Free(made->more); }

#endif
