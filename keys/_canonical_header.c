/* The signed header fields in canonical form: the compiled half of canonical_header.py.
 *
 * Answers for header sections in which nothing is odd, None for all others (_canonical_fields.h).
 * tests/keys/test_canonical_header.py compares the two.
 */

#include "_canonical_fields.h"

static PyObject *canonical(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given) {
    Selection selection;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "fields, names, order and is_relaxed are needed");
        return NULL;
    }
    if (!read_piece(args[1], &selection.names) || !read_piece(args[2], &selection.order))
        return NULL;
    int is_relaxed = PyObject_IsTrue(args[3]);
    if (is_relaxed < 0) return NULL;
    selection.is_relaxed = is_relaxed;
    Canonical made;
    switch (make_canonical(args[0], &selection, &made)) {
    case FAULT: return NULL;
    case PYTHON_MUST: Py_RETURN_NONE;
    case IS_MADE: break;
    }
    PyObject *octets = PyBytes_FromStringAndSize(made.signed_fields.octets,
                                                 made.signed_fields.size);
    drop_canonical(&made);
    return octets;
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
