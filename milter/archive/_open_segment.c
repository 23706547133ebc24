/* Lines made durable in one go: the compiled twin of `append_plainly` in open_segment.py.
 *
 * The same system calls with the same arguments, and the same leaves;
 * tests/archive/test_open_segment.py compares the two, faults among them.  Here because each message
 * waits for it: in Python each of the three calls gives up the interpreter lock and has to get it
 * back from another thread of the worker, which the leaves, hashed with the lock held, keep waiting.
 * Where there is something to do meanwhile, one call more has the disk begin before it.
 *
 * Bounds: time and memory are linear in the octets and the lines.
 */

#define Py_LIMITED_API 0x030B0000 /* one build for CPython 3.11 and all later ones */
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIGEST 32 /* octets of a leaf */

/* What came of it, in the numbers of the twin. */
enum { DONE, VANISHED, UNWRITTEN, UNSYNCED };

typedef struct {
    const char *octets;
    size_t size;
    unsigned char *leaf;
} Line;

typedef struct {
    const char *path;
    unsigned long long inode;
    int file;
    const char *octets;
    size_t size, needed, written;
    off_t offset;
    Line *lines;
    size_t count;
    int fault; /* errno */
} Work;

static EVP_MD *sha256; /* fetched once: looking for it costs as much as hashing a line */

static bool hash_leaf(EVP_MD_CTX *context, const Line *line) {
    return EVP_DigestInit_ex(context, sha256, NULL) && EVP_DigestUpdate(context, "", 1)
           && EVP_DigestUpdate(context, line->octets, line->size)
           && EVP_DigestFinal_ex(context, line->leaf, NULL);
}

static bool hash_all(Work *work) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool done = context != NULL;
    for (size_t at = 0; done && at < work->count; at++) done = hash_leaf(context, work->lines + at);
    EVP_MD_CTX_free(context);
    if (!done) work->fault = ENOMEM;
    return done;
}

/* The first time all that there is; after that, only what is needed. */
static bool write_all(Work *work) {
    size_t size = work->size;
    while (work->written < work->needed) {
        ssize_t more = pwrite(work->file, work->octets + work->written, size - work->written,
                              work->offset + (off_t)work->written);
        if (more < 0 && errno == EINTR) continue;
        if (more > 0) work->written += (size_t)more;
        /* Room that there is no space for may cost the whole write (ext4's large folios). */
        bool is_final = more < 0 && size == work->needed;
        size = work->needed;
        if (is_final) {
            work->fault = errno;
            return false;
        }
    }
    return true;
}

/* Have the disk begin with what was written, and wait for nothing.  Done without where there is no
   such call, or none for such a file.  Any other fault is that of the write, and must not be lost:
   ext4 drops octets that it has no place for after all, and says so only to whoever has them
   written, so that a sync that comes later finds nothing to do and nothing wrong. */
static bool begin_writing(Work *work) {
    int failed;
    do
        failed = sync_file_range(work->file, work->offset, (off_t)work->written,
                                 SYNC_FILE_RANGE_WRITE);
    while (failed && errno == EINTR);
    if (!failed || errno == ENOSYS || errno == EPERM || errno == ESPIPE) return true;
    work->fault = errno;
    return false;
}

static bool sync_all(Work *work) {
    int failed;
    do failed = fdatasync(work->file);
    while (failed && errno == EINTR);
    if (failed) work->fault = errno;
    return !failed;
}

/* Write, and sync or have the disk begin.  Neither this nor `sync_all` touches an object that
   anybody else has: the interpreter lock is not held. */
static int append_lines(Work *work, bool is_synced_later) {
    /* The inode and no times: who asks for these has the next write enter exact new ones (Linux
       6.13), so that every sync would have the inode to write as well (ext4 without a journal). */
    struct statx found;
    if (statx(AT_FDCWD, work->path, 0, STATX_INO, &found) || found.stx_ino != work->inode)
        return VANISHED;
    if (!write_all(work)) return UNWRITTEN;
    if (is_synced_later && !begin_writing(work)) return UNSYNCED;
    /* Hashed before the sync, after which the lines may have left the processor's caches.  Without
       its leaf no line may be promised, as without the sync. */
    return hash_all(work) && (is_synced_later || sync_all(work)) ? DONE : UNSYNCED;
}

/* A new list with room for the leaf of each line; before anything is written, so that nothing can
   go wrong after that. */
static PyObject *prepare(Work *work, PyObject *lines) {
    PyObject *leaves = PyList_New((Py_ssize_t)work->count);
    for (size_t at = 0; leaves && at < work->count; at++) {
        Py_ssize_t size;
        char *octets;
        PyObject *leaf = PyBytes_FromStringAndSize(NULL, DIGEST);
        if (!leaf || PyList_SetItem(leaves, (Py_ssize_t)at, leaf)
            || PyBytes_AsStringAndSize(PyTuple_GetItem(lines, (Py_ssize_t)at), &octets, &size))
            Py_CLEAR(leaves);
        else
            work->lines[at] = (Line){octets, (size_t)size, (unsigned char *)PyBytes_AsString(leaf)};
    }
    return leaves;
}

/* `lines` is a tuple of our own: nobody takes a line away meanwhile. */
static PyObject *append_all(Work *work, PyObject *lines, PyObject *meanwhile) {
    PyObject *leaves = prepare(work, lines);
    if (!leaves) return NULL;
    int outcome;
    bool is_synced_later = meanwhile != Py_None;
    Py_BEGIN_ALLOW_THREADS
    outcome = append_lines(work, is_synced_later);
    Py_END_ALLOW_THREADS
    if (outcome == DONE && is_synced_later) {
        PyObject *done = PyObject_CallNoArgs(meanwhile);
        /* What was written is accounted for, whatever became of that. */
        if (!done) PyErr_Clear();
        Py_XDECREF(done);
        Py_BEGIN_ALLOW_THREADS
        if (!sync_all(work)) outcome = UNSYNCED;
        Py_END_ALLOW_THREADS
    }
    if (outcome != DONE) {
        Py_DECREF(leaves);
        leaves = PyList_New(0);
        if (!leaves) return NULL;
    }
    return Py_BuildValue("(iinN)", outcome, work->fault, (Py_ssize_t)work->written, leaves);
}

static PyObject *append(PyObject *Py_UNUSED(module), PyObject *args) {
    Work work = {0};
    PyObject *octets, *given, *meanwhile;
    Py_ssize_t needed;
    long long offset;
    if (!PyArg_ParseTuple(args, "(yKiL)SnO!O", &work.path, &work.inode, &work.file, &offset,
                          &octets, &needed, &PyList_Type, &given, &meanwhile))
        return NULL;
    Py_ssize_t size = PyBytes_Size(octets);
    if (needed < 0 || needed > size || offset < 0) {
        PyErr_SetString(PyExc_ValueError, "there are not as many octets");
        return NULL;
    }
    PyObject *made = NULL, *lines = PyList_AsTuple(given);
    if (!lines) return NULL;
    work.octets = PyBytes_AsString(octets);
    work.size = (size_t)size;
    work.needed = (size_t)needed;
    work.offset = (off_t)offset;
    work.count = (size_t)PyTuple_Size(lines);
    work.lines = PyMem_Calloc(work.count + 1, sizeof(Line));
    made = work.lines ? append_all(&work, lines, meanwhile) : PyErr_NoMemory();
    PyMem_Free(work.lines);
    Py_DECREF(lines);
    return made;
}

static PyMethodDef methods[] = {
    {"append", append, METH_VARARGS,
     "append((path, inode, file, offset), octets, needed, lines, meanwhile): see append_plainly."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *Py_UNUSED(module)) {
    if (!sha256) sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (sha256) return 0;
    PyErr_SetString(PyExc_ImportError, "OpenSSL has no SHA-256");
    return -1;
}

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_open_segment", .m_size = 0, .m_methods = methods,
    .m_slots = parts,
};

PyMODINIT_FUNC PyInit__open_segment(void) { return PyModuleDef_Init(&definition); }
