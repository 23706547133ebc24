/* The hash of a streamed body: the compiled twin of body_hash.py and canonical_body.py.
 *
 * Same promises, same answers, octet by octet; tests/keys/test_canonical_body.py compares the two.
 * Here to be cheaper than the SHA-256 that it feeds, whatever the body consists of; and as each
 * message pays for it, one call takes a piece, without a frame or an object of the interpreter.
 *
 * The chunk is looked at in blocks of 64 octets, of which one bit each tells whether it is white
 * space, CR, LF or beyond ASCII; the rules of RFC 6376 section 3.4 are a few operations on those
 * words.  As long as nothing has to change, nothing is copied.
 *
 * With OpenSSL's older interface to SHA-256, deprecated as it is: it is a structure to be copied,
 * where the newer one makes a context each time and looks its algorithm up.
 *
 * Bounds: reads stay within the chunk (its end is looked at in a padded copy); what is written is
 * at most as long as the chunk, in a buffer with one block of slack.
 */

#define OPENSSL_API_COMPAT 0x10101000L
#include "_extension.h"
#include <openssl/sha.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define BLOCK 64
#define AHEAD 2             /* octets after a block that decide about its last ones: CR LF */
#define EMPTY_LINES 512 /* that are hashed at once */
/* Others may run meanwhile: the most that the milter protocol carries at once.  Around the hashing
   of a small body that costs more than it gives: with eight threads in one process, a body of 4 to
   64 KB took 7 to 20 % more CPU time, for handing the interpreter over and waiting for its return. */
#define FULL_CHUNK 65535

typedef struct {
    bool held_space; /* the last chunk ended in white space, perhaps followed by held_cr */
    bool held_cr;    /* the last chunk ended in CR */
    bool started;    /* something but CRLFs was fed */
    bool high;       /* an octet beyond ASCII was seen */
    bool bare;       /* a CR or LF that stands alone was seen */
    uint64_t empty_lines; /* CRLFs seen after the last octet that was fed */
    uint64_t size;
    uint64_t line_start;  /* of the line that the last chunk left unfinished, in octets of body */
    uint64_t longest;     /* line, without CRLF */
} State;

typedef struct {
    PyObject_HEAD
    bool relaxed;
    State state;
    SHA256_CTX hash;
    PyObject *canonicalization, *facts, *digest; /* the last two of what was taken so far, or NULL */
} BodyHash;

/* ---- Looking at a block ---------------------------------------------------------------------- */

typedef struct {
    uint64_t space, cr, lf; /* bit n: octet n of the block; space is SP or HTAB */
    bool tab, high;         /* some octet is */
} Marks;

#if defined(__SSE2__)
static inline Marks look(const octet *block) {
    Marks marks = {0, 0, 0, false, false};
    __m128i any_tab = _mm_setzero_si128(), any = _mm_setzero_si128();
#pragma GCC unroll 4
    for (int at = 0; at < BLOCK; at += 16) {
        __m128i octets = _mm_loadu_si128((const __m128i *)(block + at));
        __m128i tab = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\t'));
        __m128i space = _mm_or_si128(tab, _mm_cmpeq_epi8(octets, _mm_set1_epi8(' ')));
        __m128i cr = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\r'));
        __m128i lf = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\n'));
        marks.space |= (uint64_t)_mm_movemask_epi8(space) << at;
        marks.cr |= (uint64_t)_mm_movemask_epi8(cr) << at;
        marks.lf |= (uint64_t)_mm_movemask_epi8(lf) << at;
        any_tab = _mm_or_si128(any_tab, tab);
        any = _mm_or_si128(any, octets);
    }
    marks.tab = _mm_movemask_epi8(any_tab) != 0;
    marks.high = _mm_movemask_epi8(any) != 0;
    return marks;
}
#else
static inline Marks look(const octet *block) {
    Marks marks = {0, 0, 0, false, false};
    for (int at = 0; at < BLOCK; at++) {
        octet one = block[at];
        marks.space |= (uint64_t)(one == ' ' || one == '\t') << at;
        marks.cr |= (uint64_t)(one == '\r') << at;
        marks.lf |= (uint64_t)(one == '\n') << at;
        marks.tab |= one == '\t';
        marks.high |= one >> 7;
    }
    return marks;
}
#endif

static inline bool is_space(octet one) { return one == ' ' || one == '\t'; }

/* The white space that section 3.4.4 takes out: all of a run but its last octet, and that too when
   CRLF follows.  The AHEAD octets after the block are readable. */
static inline uint64_t superfluous(const octet *block, const Marks *marks) {
    const octet *next = block + BLOCK;
    uint64_t spaces = marks->space;
    uint64_t line_ends = marks->cr & (marks->lf >> 1 | (uint64_t)(next[0] == '\n') << 63);
    bool goes_on = is_space(next[0]) || (next[0] == '\r' && next[1] == '\n');
    return spaces & (spaces >> 1 | line_ends >> 1 | (uint64_t)goes_on << 63);
}

static inline void measure(State *state, const Marks *marks, uint64_t valid, uint64_t at) {
    state->high |= marks->high;
    /* Each LF wants a CR before it, and each CR an LF behind it. */
    state->bare |= ((marks->lf ^ (marks->cr << 1 | state->held_cr)) & valid) != 0;
    state->held_cr = marks->cr >> 63;
    for (uint64_t left = marks->lf; left; left &= left - 1) {
        uint64_t end = at + (uint64_t)__builtin_ctzll(left);
        uint64_t length = end - state->line_start; /* with the CR */
        if (length > state->longest + 1) state->longest = length - 1;
        state->line_start = end + 1;
    }
}

/* Copy the octets of a block whose bit is set, each HTAB as SP. */
static inline octet *copy_kept(octet *to, const octet *block, uint64_t keep) {
    octet plain[2 * BLOCK];
    for (int n = 0; n < BLOCK; n++) plain[n] = block[n] == '\t' ? ' ' : block[n];
    if (__builtin_popcountll(keep & ~(keep << 1)) > 8) {
#pragma GCC unroll 16
        for (int n = 0; n < BLOCK; n++, keep >>= 1) {
            *to = plain[n];
            to += keep & 1;
        }
        return to;
    }
    for (unsigned at = 0; keep;) {
        unsigned gap = (unsigned)__builtin_ctzll(keep);
        at += gap;
        keep >>= gap;
        unsigned run = ~keep ? (unsigned)__builtin_ctzll(~keep) : BLOCK;
        memcpy(to, plain + at, BLOCK);
        to += run;
        at += run;
        keep = run < BLOCK ? keep >> run : 0;
    }
    return to;
}

/* ---- One chunk ------------------------------------------------------------------------------- */

/* Measure a chunk and reduce its white space, as if text followed it.  `*made` is the new form, or
   NULL when it is the chunk as it stands; returns its length, or -1 with an exception set. */
static Py_ssize_t scan(State *state, bool relaxed, const octet *chunk, Py_ssize_t size,
                       octet **made) {
    octet end[BLOCK + AHEAD];
    octet *to = NULL;
    for (Py_ssize_t at = 0; at < size; at += BLOCK) {
        const octet *block = chunk + at;
        Py_ssize_t left = size - at;
        uint64_t valid = ~(uint64_t)0;
        if (left < BLOCK + AHEAD) {
            memset(end, 0, sizeof end);
            memcpy(end, block, (size_t)left);
            block = end;
            if (left < BLOCK) valid = ((uint64_t)1 << left) - 1;
        }
        Marks marks = look(block);
        measure(state, &marks, valid, state->size + (uint64_t)at);
        if (!relaxed) continue;
        uint64_t drop = superfluous(block, &marks);
        if (!drop && !marks.tab) {
            if (to) {
                memcpy(to, block, BLOCK);
                to += left < BLOCK ? left : BLOCK;
            }
            continue;
        }
        if (!to) {
            *made = PyMem_Malloc((size_t)size + BLOCK);
            if (!*made) {
                PyErr_NoMemory();
                return -1;
            }
            memcpy(*made, chunk, (size_t)at);
            to = *made + at;
        }
        uint64_t keep = valid & ~drop;
        if (!keep) continue;
        to = copy_kept(to, block, keep);
    }
    return to ? to - *made : size;
}

static void hash_lines(SHA256_CTX *hash, uint64_t lines) {
    static const char few[] = "\r\n\r\n\r\n\r\n";
    if (lines <= sizeof few / 2) {
        SHA256_Update(hash, few, 2 * (size_t)lines);
        return;
    }
    char many[2 * EMPTY_LINES];
    for (size_t at = 0; at < sizeof many; at += 2) memcpy(many + at, "\r\n", 2);
    for (; lines > EMPTY_LINES; lines -= EMPTY_LINES) SHA256_Update(hash, many, sizeof many);
    SHA256_Update(hash, many, 2 * (size_t)lines);
}

/* 0, or -1 with an exception set; then nothing was taken. */
static int take(BodyHash *self, const octet *chunk, Py_ssize_t size) {
    if (!size) return 0;
    State next = self->state;
    octet *made = NULL;
    Py_ssize_t length = scan(&next, self->relaxed, chunk, size, &made);
    if (length < 0) return -1;
    const octet *octets = made ? made : chunk;

    /* What the last chunk held back is decided by the first octets of this one. */
    const char *held = "";
    if (self->state.held_cr && chunk[0] == '\n') {
        next.empty_lines++;
        octets++, length--;
    } else if (self->state.held_cr) {
        held = self->state.held_space ? " \r" : "\r";
    } else if (self->state.held_space && !is_space(chunk[0])
               && !(chunk[0] == '\r' && (size == 1 || chunk[1] == '\n'))) {
        held = " ";
    }
    /* And what this one holds back. */
    Py_ssize_t text = size;
    next.held_cr = chunk[size - 1] == '\r';
    text -= next.held_cr;
    length -= next.held_cr;
    if (text) {
        next.held_space = self->relaxed && is_space(chunk[text - 1]);
        length -= next.held_space;
    } else { /* the chunk is one CR */
        next.held_space = self->state.held_space && !self->state.held_cr;
    }
    next.size += (uint64_t)size;

    uint64_t before = next.empty_lines, after = 0;
    for (; length >= 2 && !memcmp(octets + length - 2, "\r\n", 2); length -= 2) after++;
    bool has_text = length || *held;
    next.empty_lines = has_text ? after : before + after;
    next.started |= has_text;
    self->state = next;
    Py_CLEAR(self->facts);
    Py_CLEAR(self->digest);
    if (has_text) {
        hash_lines(&self->hash, before);
        SHA256_Update(&self->hash, held, strlen(held));
        if (size < FULL_CHUNK)
            SHA256_Update(&self->hash, octets, (size_t)length);
        else {
            /* In a copy: whoever else takes this very object meanwhile gets a wrong hash by it,
               and nothing worse. */
            SHA256_CTX hash = self->hash;
            Py_BEGIN_ALLOW_THREADS
            SHA256_Update(&hash, octets, (size_t)length);
            Py_END_ALLOW_THREADS
            self->hash = hash;
        }
    }
    PyMem_Free(made);
    return 0;
}

static PyObject *update(PyObject *self, PyObject *chunk) {
    char *octets;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(chunk, &octets, &size)) return NULL;
    if (take((BodyHash *)self, (const octet *)octets, size)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *update_part(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    if (given != 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "octets, a beginning and an end are needed");
        return NULL;
    }
    Py_ssize_t begin = PyLong_AsSsize_t(args[1]), end = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    if (begin < 0 || end < begin || end > PyBytes_Size(args[0])) {
        PyErr_SetString(PyExc_ValueError, "not a part of the octets");
        return NULL;
    }
    const octet *octets = (const octet *)PyBytes_AsString(args[0]);
    if (take((BodyHash *)self, octets + begin, end - begin)) return NULL;
    Py_RETURN_NONE;
}

/* ---- What came of it ------------------------------------------------------------------------- */

static PyObject *digest(PyObject *object, PyObject *Py_UNUSED(none)) {
    BodyHash *self = (BodyHash *)object;
    if (!self->digest) {
        const State *state = &self->state;
        SHA256_CTX hash = self->hash;
        octet made[SHA256_DIGEST_LENGTH];
        if (state->held_cr) {
            hash_lines(&hash, state->empty_lines);
            SHA256_Update(&hash, state->held_space ? " \r" : "\r", 1 + (size_t)state->held_space);
        }
        if (state->started || state->held_cr || !self->relaxed) SHA256_Update(&hash, "\r\n", 2);
        SHA256_Final(made, &hash);
        self->digest = PyBytes_FromStringAndSize((char *)made, sizeof made);
        if (!self->digest) return NULL;
    }
    return Py_NewRef(self->digest);
}

static PyObject *get_size(PyObject *self, void *Py_UNUSED(none)) {
    return PyLong_FromUnsignedLongLong(((BodyHash *)self)->state.size);
}

static PyObject *get_canonicalization(PyObject *self, void *Py_UNUSED(none)) {
    return Py_NewRef(((BodyHash *)self)->canonicalization);
}

static uint64_t longest_line(const State *state) {
    uint64_t open_line = state->size - state->line_start;
    return open_line > state->longest ? open_line : state->longest;
}

static bool has_bare(const State *state) { return state->bare || state->held_cr; }

static PyObject *plain_digest(PyObject *object, PyObject *limit) {
    const State *state = &((BodyHash *)object)->state;
    unsigned long long longest = PyLong_AsUnsignedLongLong(limit);
    if (PyErr_Occurred()) return NULL;
    if (state->high || has_bare(state) || longest_line(state) > longest) Py_RETURN_NONE;
    return digest(object, NULL);
}

/* The tuple that policies.survival has for them. */
static PyObject *facts(PyObject *object, PyObject *Py_UNUSED(none)) {
    BodyHash *self = (BodyHash *)object;
    if (self->facts) return Py_NewRef(self->facts);
    PyObject *const *kind = PyType_GetModuleState(Py_TYPE(object));
    if (!kind) return NULL;
    const State *state = &self->state;
    PyObject *parts = Py_BuildValue(
        "KKOO", (unsigned long long)state->size, (unsigned long long)longest_line(state),
        state->high ? Py_True : Py_False, has_bare(state) ? Py_True : Py_False);
    self->facts = parts ? named_tuple(*kind, parts) : NULL;
    Py_XDECREF(parts);
    return self->facts ? Py_NewRef(self->facts) : NULL;
}

/* ---- The type -------------------------------------------------------------------------------- */

static void deallocate(PyObject *object) {
    BodyHash *self = (BodyHash *)object;
    Py_XDECREF(self->canonicalization);
    Py_XDECREF(self->facts);
    Py_XDECREF(self->digest);
    free_object(object);
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *canonicalization;
    if (named && PyDict_Size(named)) {
        PyErr_SetString(PyExc_TypeError, "the canonicalization has no name");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "U", &canonicalization)) return NULL;
    bool is_relaxed = !PyUnicode_CompareWithASCIIString(canonicalization, "relaxed");
    if (!is_relaxed && PyUnicode_CompareWithASCIIString(canonicalization, "simple"))
        return PyErr_Format(PyExc_ValueError, "no canonicalization: %R", canonicalization);
    BodyHash *self = new_object(type); /* nothing was seen */
    if (!self) return NULL;
    self->relaxed = is_relaxed;
    self->canonicalization = Py_NewRef(canonicalization);
    SHA256_Init(&self->hash);
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"update", update, METH_O, "Take the next octets."},
    {"update_part", FASTCALL(update_part),
     "update_part(octets, begin, end): take these of them, without a copy."},
    {"digest", digest, METH_NOARGS, "SHA-256 of the canonical form so far; more may follow."},
    {"plain_digest", plain_digest, METH_O,
     "plain_digest(limit): that of 7-bit lines of up to so many octets, each with CRLF; else None."},
    {"facts", facts, METH_NOARGS, "What was measured so far: policies.survival.BodyFacts."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef parts_of_one[] = {
    {"size", get_size, NULL, "Octets so far.", NULL},
    {"canonicalization", get_canonicalization, NULL, "'relaxed' or 'simple'.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "BodyHash(canonicalization): the hash of one body; see body_hash.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {Py_tp_getset, parts_of_one},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.keys._body_hash.BodyHash",
    .basicsize = sizeof(BodyHash),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

/* ---- The module ------------------------------------------------------------------------------ */

static int fill(PyObject *module) {
    PyObject **kind = PyModule_GetState(module);
    PyObject *policy = PyImport_ImportModule("carbonseal.policies.survival");
    *kind = policy ? PyObject_GetAttrString(policy, "BodyFacts") : NULL;
    Py_XDECREF(policy);
    PyObject *type = *kind ? PyType_FromModuleAndSpec(module, &spec, NULL) : NULL;
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return failed;
}

static int traverse(PyObject *module, visitproc visit, void *arg) {
    PyObject *const *kind = PyModule_GetState(module);
    Py_VISIT(*kind);
    return 0;
}

static int clear(PyObject *module) {
    PyObject **kind = PyModule_GetState(module);
    Py_CLEAR(*kind);
    return 0;
}

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_body_hash", .m_size = sizeof(PyObject *),
    .m_slots = parts, .m_traverse = traverse, .m_clear = clear,
};

PyMODINIT_FUNC PyInit__body_hash(void) { return PyModuleDef_Init(&definition); }
