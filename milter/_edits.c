/* The packets that accept a message with its edits: the compiled twin of `packed_plainly` in
 * edits.py.
 *
 * Same octets, same refusals; tests/milter/test_edits.py compares the two.  Here because each
 * message has some, and Python makes a dozen objects on the way to them.
 *
 * Bounds: time and memory are linear in the texts.
 */

#include "../keys/_extension.h"

#define PREFIX 4   /* octets of a packet's length, which counts what comes after them */
#define POSITION 4 /* octets of where a field is inserted: zeros, at the top */
#define END 5      /* octets of the packet that lets the message go on */
#define LARGEST ((size_t)1 << 30) /* octets of one text, far from what the length can say */

static const char field_name[] = "DKIM-Signature";
static const char silent[] = "NOTIFY=NEVER";

typedef struct {
    const char *octets;
    size_t size;
} Text;

/* A text without a NUL; false with an exception set. */
static bool take_text(PyObject *given, Text *text) {
    if (!given || !PyUnicode_Check(given)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a text for the MTA is needed");
        return false;
    }
    Py_ssize_t size;
    text->octets = PyUnicode_AsUTF8AndSize(given, &size);
    if (!text->octets) return false;
    text->size = (size_t)size;
    if (text->size > LARGEST || memchr(text->octets, 0, text->size)) {
        PyErr_SetString(PyExc_ValueError, text->size > LARGEST
                                              ? "a text for the MTA is too long"
                                              : "a text for the MTA holds a NUL");
        return false;
    }
    return true;
}

/* The value of a field: what its signature begins with. */
static bool take_value(PyObject *signatures, Py_ssize_t at, Text *text) {
    PyObject *one = PyTuple_GetItem(signatures, at);
    if (!one || !PyTuple_Check(one)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a signature is needed");
        return false;
    }
    return take_text(PyTuple_GetItem(one, 0), text);
}

static octet *put(octet *to, const void *from, size_t size) {
    memcpy(to, from, size);
    return to + size;
}

static octet *put_head(octet *to, size_t payload, char command) {
    size_t length = payload + 1;
    for (int shift = 24; shift >= 0; shift -= 8) *to++ = (octet)(length >> shift);
    *to++ = (octet)command;
    return to;
}

/* A field at the top; both names and all NULs are counted by `sizeof`. */
static size_t field_payload(Text value) { return POSITION + sizeof field_name + value.size + 1; }

static octet *put_field(octet *to, Text value) {
    to = put_head(to, field_payload(value), 'i');
    to = put(to, "\0\0\0\0", POSITION);
    to = put(to, field_name, sizeof field_name);
    return put(to, value.octets, value.size + 1);
}

static size_t recipient_payload(Text address) { return address.size + 3 + sizeof silent; }

static octet *put_recipient(octet *to, Text address) {
    to = put_head(to, recipient_payload(address), '2');
    *to++ = '<';
    to = put(to, address.octets, address.size);
    to = put(to, ">", 2);
    return put(to, silent, sizeof silent);
}

static PyObject *packed(PyObject *Py_UNUSED(module), PyObject *done) {
    PyObject *signatures = NULL, *copies = NULL;
    if (PyTuple_Check(done) && PyTuple_Size(done) == 3) {
        signatures = PyTuple_GetItem(done, 0);
        copies = PyTuple_GetItem(done, 1);
    }
    if (!signatures || !PyTuple_Check(signatures) || !PyTuple_Check(copies)) {
        PyErr_SetString(PyExc_TypeError, "signatures and copies are needed");
        return NULL;
    }
    Text text;
    size_t size = END;
    for (Py_ssize_t at = 0; at < PyTuple_Size(signatures); at++) {
        if (!take_value(signatures, at, &text)) return NULL;
        size += PREFIX + 1 + field_payload(text);
    }
    for (Py_ssize_t at = 0; at < PyTuple_Size(copies); at++) {
        if (!take_text(PyTuple_GetItem(copies, at), &text)) return NULL;
        size += PREFIX + 1 + recipient_payload(text);
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!made) return NULL;
    octet *to = (octet *)PyBytes_AsString(made);
    /* Neither the tuples nor the texts can have changed since. */
    for (Py_ssize_t at = PyTuple_Size(signatures) - 1; at >= 0; at--) {
        take_value(signatures, at, &text);
        to = put_field(to, text);
    }
    for (Py_ssize_t at = 0; at < PyTuple_Size(copies); at++) {
        take_text(PyTuple_GetItem(copies, at), &text);
        to = put_recipient(to, text);
    }
    put_head(to, 0, 'c');
    return made;
}

static PyMethodDef methods[] = {
    {"packed", packed, METH_O, "packed(done): packets of the edits, and that the message goes on."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_edits", .m_methods = methods, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__edits(void) { return PyModuleDef_Init(&definition); }
