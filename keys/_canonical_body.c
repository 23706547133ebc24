/* The canonical form of a streamed body: the compiled twin of canonical_body.py.
 *
 * Same promises, same answers, octet by octet; tests/keys/test_canonical_body.py compares the two.
 * Here to be cheaper than the SHA-256 it feeds, whatever the body consists of.
 *
 * The chunk is looked at in blocks of 64 octets, of which one bit each tells whether it is white
 * space, CR, LF or beyond ASCII; the rules of RFC 6376 section 3.4 are a few operations on those
 * words.  As long as nothing has to change, nothing is copied.
 *
 * Bounds: reads stay within the chunk (its end is looked at in a padded copy); what is written is
 * at most as long as the chunk, in a buffer with one block of slack.
 */

#include "_extension.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define BLOCK 64
#define AHEAD 2             /* octets after a block that decide about its last ones: CR LF */
#define MOST_HELD 4 /* SP CR, and the CRLF that ends the body */
/* hashlib gives up the GIL for pieces of 2048 octets and more.  Around the hashing of a small body
   that costs more than it gives: with eight threads in one process, a body of 4 to 64 KB took 7 to
   20 % more CPU time, for handing the interpreter over and waiting for its return.  Cutting a chunk
   into such pieces costs a tenth of hashing it, so bodies of several full chunks are not cut. */
#define PIECE 2046
#define FULL_CHUNK 65535 /* the most that the milter protocol carries at once */

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
} CanonicalBody;

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
   NULL when it is the chunk as it stands; returns its length, or -1 with an exception. */
static Py_ssize_t scan(State *state, bool relaxed, const octet *chunk, Py_ssize_t size,
                       PyObject **made) {
    octet end[BLOCK + AHEAD];
    octet *start = NULL, *to = NULL;
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
            *made = PyBytes_FromStringAndSize(NULL, size + BLOCK);
            if (!*made) return -1;
            start = (octet *)PyBytes_AsString(*made);
            memcpy(start, chunk, (size_t)at);
            to = start + at;
        }
        uint64_t keep = valid & ~drop;
        if (!keep) continue;
        to = copy_kept(to, block, keep);
    }
    return to ? to - start : size;
}

static int feed_one(PyObject *feed, PyObject *octets) {
    PyObject *answer = octets ? PyObject_CallFunctionObjArgs(feed, octets, NULL) : NULL;
    Py_XDECREF(octets);
    Py_XDECREF(answer);
    return answer ? 0 : -1;
}

static int feed_pieces(PyObject *feed, const octet *octets, Py_ssize_t size) {
    for (Py_ssize_t piece; size > 0; octets += piece, size -= piece) {
        piece = size < PIECE ? size : PIECE;
        if (feed_one(feed, PyBytes_FromStringAndSize((const char *)octets, piece)) < 0) return -1;
    }
    return 0;
}

/* Feed a part of `owner`, a bytes object, without copying it. */
static int feed_part(PyObject *feed, PyObject *owner, Py_ssize_t start, Py_ssize_t size) {
    PyObject *view = PyMemoryView_FromObject(owner);
    PyObject *part = view ? PySequence_GetSlice(view, start, start + size) : NULL;
    Py_XDECREF(view);
    return feed_one(feed, part);
}

/* Feed empty lines, and at most MOST_HELD octets after them. */
static int feed_lines(PyObject *feed, uint64_t lines, const char *then) {
    octet crlfs[PIECE + MOST_HELD];
    uint64_t most = lines < PIECE / 2 ? lines : PIECE / 2;
    for (uint64_t at = 0; at < most; at++) memcpy(crlfs + 2 * at, "\r\n", 2);
    for (; lines > PIECE / 2; lines -= PIECE / 2)
        if (feed_pieces(feed, crlfs, PIECE) < 0) return -1;
    memcpy(crlfs + 2 * lines, then, strlen(then));
    return feed_pieces(feed, crlfs, (Py_ssize_t)(2 * lines + strlen(then)));
}

static PyObject *take(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    CanonicalBody *self = (CanonicalBody *)object;
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take(chunk: bytes, feed) expected");
        return NULL;
    }
    PyObject *feed = args[1], *made = NULL;
    const octet *chunk = (const octet *)PyBytes_AsString(args[0]);
    Py_ssize_t size = PyBytes_Size(args[0]);
    if (!size) Py_RETURN_NONE;
    State next = self->state;
    Py_ssize_t length = scan(&next, self->relaxed, chunk, size, &made);
    if (length < 0) return NULL;
    const octet *octets = made ? (const octet *)PyBytes_AsString(made) : chunk;

    /* What the last chunk held back is decided by the first octets of this one. */
    const char *held = "";
    Py_ssize_t first = 0;
    if (self->state.held_cr && chunk[0] == '\n') {
        next.empty_lines++;
        octets++, length--, first++;
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
    int failed = 0;
    if (length || *held) {
        next.empty_lines = after;
        next.started = true;
        self->state = next; /* before feeding: other threads may run then */
        if (before || *held) failed = feed_lines(feed, before, held);
        if (!failed && size < FULL_CHUNK)
            failed = feed_pieces(feed, octets, length);
        else if (!failed)
            failed = feed_part(feed, made ? made : args[0], first, length);
    } else {
        next.empty_lines += after;
        self->state = next;
    }
    Py_XDECREF(made);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyObject *finish(PyObject *object, PyObject *feed) {
    CanonicalBody *self = (CanonicalBody *)object;
    const State *state = &self->state;
    const char *held = !state->held_cr ? "" : state->held_space ? " \r\r\n" : "\r\r\n";
    int failed = 0;
    if (*held)
        failed = feed_lines(feed, state->empty_lines, held);
    else if (state->started || !self->relaxed)
        failed = feed_lines(feed, 0, "\r\n");
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static PyObject *facts(PyObject *object, PyObject *Py_UNUSED(none)) {
    const State *state = &((CanonicalBody *)object)->state;
    uint64_t open_line = state->size - state->line_start;
    return Py_BuildValue("(KKOO)", (unsigned long long)state->size,
                         (unsigned long long)(open_line > state->longest ? open_line
                                                                         : state->longest),
                         state->high ? Py_True : Py_False,
                         state->bare || state->held_cr ? Py_True : Py_False);
}

/* ---- The module ------------------------------------------------------------------------------ */

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *names[] = {"relaxed", NULL};
    int relaxed;
    if (!PyArg_ParseTupleAndKeywords(args, named, "$p", names, &relaxed)) return NULL;
    CanonicalBody *self = new_object(type); /* nothing was seen */
    if (self) self->relaxed = relaxed != 0;
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"take", FASTCALL(take), "Take the next octets."},
    {"finish", finish, METH_O, "Feed the end of the canonical form; more may be taken after."},
    {"facts", facts, METH_NOARGS, "(size, longest line, is 8-bit, has bare line ends) so far."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The canonical form of one body; see canonical_body.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, free_object},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.keys._canonical_body.CanonicalBody",
    .basicsize = sizeof(CanonicalBody),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int fill(PyObject *module) { return add_type(module, &spec); }

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_canonical_body", .m_size = 0, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__canonical_body(void) { return PyModuleDef_Init(&definition); }
