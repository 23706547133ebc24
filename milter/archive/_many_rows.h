/* Many rows for one statement of SQLite, in one piece of memory: the form, and the writing half.
 *
 * A pack: the number of columns (an octet), then each row's values: a tag, and behind it nothing, a
 * number of 64 bits, or a length of 32 and as many octets.  All as this machine writes numbers:
 * packs never leave the process.  _many_rows.c reads them.
 *
 * Promises: values arrive as the driver would have bound them; of a value that it would not bind,
 * or of which it would say more (lone surrogates, numbers of more bits), UNUSUAL, and the pack is
 * then good for nothing.  Bounds: those of the buffer, see _growing.h.
 */

#ifndef CARBONSEAL_MANY_ROWS_H
#define CARBONSEAL_MANY_ROWS_H

#include "_growing.h"

#define PACK_COLUMNS 64       /* the most that a pack can have */
#define PACK_LARGE (1u << 20) /* octets after which another pack is begun */
#define LARGEST_VALUE 0x7FFFFFFF /* octets of one value; SQLite takes no more */

enum { TAG_NOTHING, TAG_NUMBER, TAG_TEXT, TAG_OCTETS };

/* Take a pack, which may be of earlier rows, for rows of so many columns. */
static inline Outcome begin_pack(Buffer *pack, Py_ssize_t columns) {
    if (columns < 1 || columns > PACK_COLUMNS) return UNUSUAL;
    pack->size = 0;
    octet *to = lengthen(pack, 1);
    if (!to) return ERROR;
    *to = (octet)columns;
    return DONE;
}

static inline Outcome put_many(Buffer *pack, octet tag, const void *from, Py_ssize_t size) {
    if (size > LARGEST_VALUE) return UNUSUAL;
    uint32_t length = (uint32_t)size;
    octet *to = lengthen(pack, 1 + sizeof length + length);
    if (!to) return ERROR;
    *to++ = tag;
    memcpy(to, &length, sizeof length);
    if (length) memcpy(to + sizeof length, from, length);
    return DONE;
}

static inline Outcome put_number(Buffer *pack, int64_t number) {
    octet *to = lengthen(pack, 1 + sizeof number);
    if (!to) return ERROR;
    *to++ = TAG_NUMBER;
    memcpy(to, &number, sizeof number);
    return DONE;
}

static inline Outcome put_text(Buffer *pack, PyObject *value) {
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    if (text) return put_many(pack, TAG_TEXT, text, size);
    if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) return ERROR;
    PyErr_Clear(); /* lone surrogates: the driver says what it thinks of them */
    return UNUSUAL;
}

static inline Outcome put_value(Buffer *pack, PyObject *value) {
    if (value == Py_None) {
        octet *to = lengthen(pack, 1);
        if (!to) return ERROR;
        *to = TAG_NOTHING;
        return DONE;
    }
    if (PyLong_Check(value)) {
        int overflow;
        int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow ? UNUSUAL : put_number(pack, number);
    }
    if (PyUnicode_Check(value)) return put_text(pack, value);
    if (!PyBytes_Check(value)) return UNUSUAL;
    char *from;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(value, &from, &size) < 0) return ERROR;
    return put_many(pack, TAG_OCTETS, from, size);
}

/* Give a pack to a list; DONE or ERROR. */
static inline Outcome append_pack(PyObject *list, const Buffer *pack) {
    PyObject *octets =
        PyBytes_FromStringAndSize((const char *)pack->octets, (Py_ssize_t)pack->size);
    int failed = octets ? PyList_Append(list, octets) : -1;
    Py_XDECREF(octets);
    return failed ? ERROR : DONE;
}

#endif
