/* The lines that each message leaves, in the spool and in the log: the compiled twin of
 * message_lines.py.
 *
 * A `Form` holds the fixed octets of a line and, for each place between them, what kind of value
 * goes there and the way to it: descriptors of classes (the members of slots, the fields of named
 * tuples), which are asked one after the other, without looking for any name.  Same answers as the
 * twin, octet by octet; tests/archive/test_message_lines.py compares the two.
 *
 * Here because each message pays for it, and pays most for what is not in the processor's caches
 * when a worker wakes up: fixed text in one piece and a short loop are there sooner than the
 * objects and the several encoders that Python needs for the same.
 *
 * Bounds: time and memory are linear in the values; what is nested too deeply raises.
 */

#include "_record_text.h"
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_FOLDING 1
#else
#define HAS_FOLDING 0
#endif

#define AT_FIRST 6144     /* octets; usual records have 2 to 4 thousand */
#define ESCAPE 6          /* octets of \u0000; the most that one octet of text becomes */
#define LONGEST_NUMBER 24 /* octets of 64 bits in decimal, and to spare */
#define RANDOM 10         /* octets of randomness in a record's id */
#define SALT 16           /* octets of its salt */
#define MOST_ROOTS 2      /* lists that are read side by side */
#define MOMENT_SIGNS 27   /* 2026-01-01T00:00:00.000000Z */
#define LAST_SECOND 253402300799.0 /* of the year 9999 */

/* What goes into a place, in the numbers of the twin. */
enum { VALUE, REASON, REASONS, EACH, NOTHING, COUNT, MOMENT };

typedef struct Form Form;

typedef struct {
    PyObject *descriptor;
    descrgetfunc get; /* of its type */
} Step;

/* The way from an object to what is wanted of it. */
typedef struct {
    Py_ssize_t root; /* from which object */
    Py_ssize_t count;
    Step *steps;
} Path;

typedef struct {
    size_t start, end; /* of the fixed octets before the place */
    int kind;
    Form *each;             /* for EACH: the form of one element */
    Path paths[MOST_ROOTS]; /* one, or for EACH one to each of the lists */
    Py_ssize_t path_count;
} Piece;

struct Form {
    PyObject_HEAD
    octet *fixed;
    Piece *pieces;
    Py_ssize_t count; /* of the pieces; the last one's kind is NOTHING */
    Py_ssize_t roots; /* objects that its paths begin at */
    PyObject *checksum; /* for a processor that cannot compute it quickly, else NULL */
};

static PyObject *name_of_code, *name_of_about; /* the attributes of a reason */

typedef struct {
    octet *octets;
    size_t size, room;
    bool is_beyond; /* something beyond ASCII is in it: then DEL is escaped as well, as json does */
    bool has_plain_del;
    octet first[AT_FIRST];
} Text;

/* ---- Growing text ---------------------------------------------------------------------------- */

static void begin(Text *text, bool is_beyond) {
    text->octets = text->first;
    text->size = 0;
    text->room = AT_FIRST;
    text->is_beyond = is_beyond;
    text->has_plain_del = false;
}

static void end(Text *text) {
    if (text->octets != text->first) PyMem_Free(text->octets);
}

static bool make_room(Text *text, size_t more) {
    if (text->room - text->size >= more) return true;
    if (more > PY_SSIZE_T_MAX / 4 || text->size > PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return false;
    }
    size_t room = 2 * (text->size + more);
    octet *octets = PyMem_Malloc(room);
    if (!octets) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(octets, text->octets, text->size);
    end(text);
    text->octets = octets;
    text->room = room;
    return true;
}

static bool put(Text *text, const void *octets, size_t size) {
    if (!make_room(text, size)) return false;
    memcpy(text->octets + text->size, octets, size);
    text->size += size;
    return true;
}

static bool put_one(Text *text, char one) { return put(text, &one, 1); }

/* ---- JSON ------------------------------------------------------------------------------------ */

/* There is room for ESCAPE octets. */
static void put_unit(Text *text, uint32_t unit) {
    static const char digits[] = "0123456789abcdef";
    octet *to = text->octets + text->size;
    *to++ = '\\';
    *to++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4) *to++ = (octet)digits[unit >> shift & 15];
    text->size += ESCAPE;
}

/* There is room for 2 * ESCAPE octets. */
static void put_point(Text *text, uint32_t point) {
    char brief = 0;
    switch (point) {
    case '"': brief = '"'; break;
    case '\\': brief = '\\'; break;
    case '\b': brief = 'b'; break;
    case '\f': brief = 'f'; break;
    case '\n': brief = 'n'; break;
    case '\r': brief = 'r'; break;
    case '\t': brief = 't'; break;
    }
    if (brief) {
        text->octets[text->size++] = '\\';
        text->octets[text->size++] = (octet)brief;
    } else if (point >= ' ' && point < 0x7f) {
        text->octets[text->size++] = (octet)point;
    } else if (point == 0x7f && !text->is_beyond) {
        text->octets[text->size++] = (octet)point;
        text->has_plain_del = true;
    } else {
        text->is_beyond |= point > 0x7f;
        if (point > 0xffff) {
            put_unit(text, 0xd800 + ((point - 0x10000) >> 10));
            point = 0xdc00 + ((point - 0x10000) & 0x3ff);
        }
        put_unit(text, point);
    }
}

/* The character that UTF-8 says here; an octet that is no UTF-8 as Python's surrogateescape says
   it.  `*used` is how many octets it takes. */
static uint32_t point_at(const octet *from, size_t size, size_t *used) {
    octet lead = from[0];
    size_t wanted = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    *used = 1;
    if (wanted == 1) return lead;
    if (!wanted || lead > 0xf4 || wanted > size) return 0xdc00u + lead;
    uint32_t point = lead & (0x7fu >> wanted);
    for (size_t at = 1; at < wanted; at++) {
        if ((from[at] & 0xc0) != 0x80) return 0xdc00u + lead;
        point = point << 6 | (from[at] & 0x3f);
    }
    bool is_short = (wanted == 3 && point < 0x800) || (wanted == 4 && point < 0x10000);
    if (is_short || (point >= 0xd800 && point < 0xe000) || point > 0x10ffff) return 0xdc00u + lead;
    *used = wanted;
    return point;
}

/* The inside of a JSON text. */
static bool put_octets(Text *text, const octet *from, size_t size) {
    /* Nothing grows more than an octet that is no UTF-8, or is written as an escape. */
    if (size > PY_SSIZE_T_MAX / (4 * ESCAPE)) {
        PyErr_NoMemory();
        return false;
    }
    if (!make_room(text, size * ESCAPE + 2 * ESCAPE)) return false;
    for (size_t at = 0; at < size;) {
        size_t run = plain_run(from + at, size - at);
        memcpy(text->octets + text->size, from + at, run);
        text->size += run;
        at += run;
        if (at < size) {
            size_t used;
            put_point(text, point_at(from + at, size - at, &used));
            at += used;
        }
    }
    return true;
}

static bool put_text(Text *text, PyObject *value) {
    Py_ssize_t size;
    const char *octets = PyUnicode_AsUTF8AndSize(value, &size);
    if (octets) return put_octets(text, (const octet *)octets, (size_t)size);
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) return false;
    PyErr_Clear(); /* it holds lone surrogates */
    Py_ssize_t length = PyUnicode_GetLength(value);
    for (Py_ssize_t at = 0; at < length; at++) {
        if (!make_room(text, 2 * ESCAPE)) return false;
        put_point(text, PyUnicode_ReadChar(value, at));
    }
    return true;
}

/* A whole number, with at least so many digits. */
static bool put_digits(Text *text, unsigned long long number, size_t least) {
    octet digits[LONGEST_NUMBER];
    size_t at = LONGEST_NUMBER;
    do digits[--at] = (octet)('0' + number % 10);
    while ((number /= 10) || LONGEST_NUMBER - at < least);
    return put(text, digits + at, LONGEST_NUMBER - at);
}

static bool put_number(Text *text, PyObject *value) {
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) {
        PyObject *whole = PyNumber_ToBase(value, 10);
        bool done = whole && put_text(text, whole);
        Py_XDECREF(whole);
        return done;
    }
    if (number == -1 && PyErr_Occurred()) return false;
    if (number < 0 && !put_one(text, '-')) return false;
    return put_digits(text,
                      number < 0 ? 0ull - (unsigned long long)number : (unsigned long long)number,
                      1);
}

/* `code(about)`, inside a text. */
static bool put_reason(Text *text, PyObject *reason) {
    PyObject *code = PyObject_GetAttr(reason, name_of_code);
    PyObject *about = code ? PyObject_GetAttr(reason, name_of_about) : NULL;
    bool done = false;
    if (about && PyUnicode_Check(code) && PyUnicode_Check(about)) {
        done = put_text(text, code);
        if (done && PyUnicode_GetLength(about))
            done = put_one(text, '(') && put_text(text, about) && put_one(text, ')');
    } else if (about) {
        PyErr_SetString(PyExc_TypeError, "a reason is made of two texts");
    }
    Py_XDECREF(code);
    Py_XDECREF(about);
    return done;
}

static bool put_value(Text *text, PyObject *value);

static PyObject *item(PyObject *list, bool is_list, Py_ssize_t at) {
    return is_list ? PyList_GetItem(list, at) : PyTuple_GetItem(list, at);
}

/* Whether it is a list or a tuple; else TypeError. */
static bool is_several(PyObject *value, bool *is_list, Py_ssize_t *count) {
    *is_list = PyList_Check(value);
    if (!*is_list && !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a list or a tuple is wanted there");
        return false;
    }
    *count = *is_list ? PyList_Size(value) : PyTuple_Size(value);
    return true;
}

static bool put_list(Text *text, PyObject *value) {
    bool is_list;
    Py_ssize_t count;
    if (!is_several(value, &is_list, &count) || !put_one(text, '[')) return false;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *one = item(value, is_list, at);
        if (!one || (at && !put_one(text, ',')) || !put_value(text, one)) return false;
    }
    return put_one(text, ']');
}

static bool put_object(Text *text, PyObject *value) {
    PyObject *key, *member;
    Py_ssize_t at = 0;
    bool is_first = true;
    if (!put_one(text, '{')) return false;
    while (PyDict_Next(value, &at, &key, &member)) {
        if (!PyUnicode_Check(key)) {
            PyErr_SetString(PyExc_TypeError, "a key is no text");
            return false;
        }
        if (!put(text, ",\"" + is_first, 2 - is_first) || !put_text(text, key)
            || !put(text, "\":", 2) || !put_value(text, member))
            return false;
        is_first = false;
    }
    return put_one(text, '}');
}

static bool put_value(Text *text, PyObject *value) {
    if (PyUnicode_Check(value))
        return put_one(text, '"') && put_text(text, value) && put_one(text, '"');
    if (PyBytes_Check(value))
        return put_one(text, '"')
               && put_octets(text, (const octet *)PyBytes_AsString(value),
                             (size_t)PyBytes_Size(value))
               && put_one(text, '"');
    if (value == Py_None) return put(text, "null", 4);
    if (value == Py_True) return put(text, "true", 4);
    if (value == Py_False) return put(text, "false", 5);
    if (PyLong_Check(value)) return put_number(text, value);
    bool is_object = PyDict_Check(value);
    if (!is_object && !PyList_Check(value) && !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "no value of a record");
        return false;
    }
    if (Py_EnterRecursiveCall(" while a record is written")) return false;
    bool done = is_object ? put_object(text, value) : put_list(text, value);
    Py_LeaveRecursiveCall();
    return done;
}

/* ---- Filling a form -------------------------------------------------------------------------- */

static bool put_reasons(Text *text, PyObject *value) {
    bool is_list;
    Py_ssize_t count;
    if (!is_several(value, &is_list, &count) || !put_one(text, '[')) return false;
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *one = item(value, is_list, at);
        if (!one || !put(text, ",\"" + !at, 2 - !at) || !put_reason(text, one)
            || !put_one(text, '"'))
            return false;
    }
    return put_one(text, ']');
}

/* What lies at the end of a path; a new reference, or NULL with an exception set. */
static PyObject *taken(const Path *path, PyObject *const *roots) {
    PyObject *at = Py_NewRef(roots[path->root]);
    for (const Step *step = path->steps; at && step < path->steps + path->count; step++) {
        PyObject *next = step->get(step->descriptor, at, (PyObject *)Py_TYPE(at));
        Py_DECREF(at);
        at = next;
    }
    return at;
}

static bool put_count(Text *text, PyObject *value) {
    Py_ssize_t count = PyObject_Size(value);
    if (count < 0) return false;
    PyObject *number = PyLong_FromSsize_t(count);
    bool done = number && put_number(text, number);
    Py_XDECREF(number);
    return done;
}

static bool fill_json(Text *text, const Form *form, PyObject *const *roots);

/* The lists, of one length. */
typedef struct {
    PyObject *several[MOST_ROOTS];
    bool is_list[MOST_ROOTS];
    Py_ssize_t count, lists;
} Lists;

static void leave(Lists *lists) {
    while (lists->lists > 0) Py_DECREF(lists->several[--lists->lists]);
}

static bool take_lists(Lists *lists, const Piece *piece, PyObject *const *roots) {
    lists->lists = lists->count = 0;
    for (Py_ssize_t at = 0; at < piece->path_count; at++) {
        Py_ssize_t count;
        PyObject *several = taken(piece->paths + at, roots);
        if (!several) return false;
        lists->several[lists->lists++] = several;
        if (!is_several(several, lists->is_list + at, &count)) return false;
        if (at && count != lists->count) {
            PyErr_SetString(PyExc_ValueError, "lists side by side have one length");
            return false;
        }
        lists->count = count;
    }
    return true;
}

static void drop(PyObject *elements[MOST_ROOTS]) {
    for (int list = 0; list < MOST_ROOTS; list++) Py_CLEAR(elements[list]);
}

/* One element of each list, to be dropped whatever is answered. */
static bool take_elements(const Lists *lists, Py_ssize_t at, PyObject *elements[MOST_ROOTS]) {
    for (Py_ssize_t list = 0; list < lists->lists; list++) {
        PyObject *one = item(lists->several[list], lists->is_list[list], at);
        if (!one) return false;
        elements[list] = Py_NewRef(one);
    }
    return true;
}

/* A list of objects. */
static bool put_each(Text *text, const Piece *piece, PyObject *const *roots) {
    Lists lists;
    PyObject *elements[MOST_ROOTS] = {NULL};
    bool done = take_lists(&lists, piece, roots) && put_one(text, '[');
    for (Py_ssize_t at = 0; done && at < lists.count; at++) {
        done = take_elements(&lists, at, elements) && (!at || put_one(text, ','))
               && fill_json(text, piece->each, elements);
        drop(elements);
    }
    leave(&lists);
    return done && put_one(text, ']');
}

/* RFC 3339 in UTC with microseconds, as `record.timestamp` says it. */
static bool write_moment(char to[MOMENT_SIGNS], double seconds) {
    if (!(seconds >= 0 && seconds <= LAST_SECOND)) {
        PyErr_SetString(PyExc_ValueError, "a time between 1970 and 9999 is wanted there");
        return false;
    }
    long long whole = (long long)seconds;
    int micros = (int)((seconds - (double)whole) * 1000000);
    int of_day = (int)(whole % 86400);
    /* Years are counted from March on, which puts the odd day at their end; days from that of the
       year 0, of which an era of 400 years has 146,097. */
    long long days = whole / 86400 + 719468;
    int era = (int)(days / 146097), of_era = (int)(days % 146097);
    int year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int of_year = of_era - (365 * year + year / 4 - year / 100);
    int month = (5 * of_year + 2) / 153, day = of_year - (153 * month + 2) / 5 + 1;
    month = month < 10 ? month + 3 : month - 9;
    year += 400 * era + (month <= 2);
    memcpy(to, "0000-00-00T00:00:00.000000Z", MOMENT_SIGNS);
    const struct {
        int last, number; /* where its last digit stands */
    } parts[] = {{3, year}, {6, month}, {9, day}, {12, of_day / 3600}, {15, of_day / 60 % 60},
                 {18, of_day % 60}, {25, micros}};
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++)
        for (int at = parts[part].last, left = parts[part].number; left; left /= 10)
            to[at--] = (char)('0' + left % 10);
    return true;
}

static bool put_moment(Text *text, PyObject *value) {
    char signs[MOMENT_SIGNS];
    double seconds = PyFloat_AsDouble(value);
    return !PyErr_Occurred() && write_moment(signs, seconds) && put(text, signs, MOMENT_SIGNS);
}

static bool put_place(Text *text, const Piece *piece, PyObject *const *roots) {
    if (piece->kind == EACH) return put_each(text, piece, roots);
    PyObject *value = taken(piece->paths, roots);
    bool done = value != NULL;
    if (done) switch (piece->kind) {
        case VALUE: done = put_value(text, value); break;
        case REASON:
            done = put_one(text, '"') && put_reason(text, value) && put_one(text, '"');
            break;
        case REASONS: done = put_reasons(text, value); break;
        case COUNT: done = put_count(text, value); break;
        case MOMENT:
            done = put_one(text, '"') && put_moment(text, value) && put_one(text, '"');
            break;
        default: done = false; PyErr_SetString(PyExc_TypeError, "no place of a record");
        }
    Py_XDECREF(value);
    return done;
}

static bool put_fixed(Text *text, const Form *form, const Piece *piece) {
    return put(text, form->fixed + piece->start, piece->end - piece->start);
}

static bool fill_json(Text *text, const Form *form, PyObject *const *roots) {
    for (const Piece *piece = form->pieces; piece < form->pieces + form->count; piece++)
        if (!put_fixed(text, form, piece)
            || (piece->kind != NOTHING && !put_place(text, piece, roots)))
            return false;
    return true;
}

/* ---- The checksum ---------------------------------------------------------------------------- */

#if HAS_FOLDING
/* Four bits at a time, for what is left of the folding. */
static uint32_t crc_of_rest(uint32_t crc, const octet *from, size_t size) {
    static const uint32_t nibbles[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t at = 0; at < size; at++) {
        crc ^= from[at];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return crc;
}

__attribute__((target("pclmul,sse4.1"))) static __m128i folded(__m128i sum, __m128i by,
                                                              __m128i next) {
    __m128i low = _mm_clmulepi64_si128(sum, by, 0x00);
    __m128i high = _mm_clmulepi64_si128(sum, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* CRC-32 by carry-less multiplication: the octets are folded, 64 and then 16 at a time, to a
   remainder of 16, which the slow way divides.  The constants are powers of x modulo the
   polynomial, reflected: 4*128+32 and 4*128-32, then 128+32 and 128-32. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t quick_crc(const octet *from, size_t size) {
    if (size < 64) return ~crc_of_rest(~0u, from, size);
    const __m128i by_four = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_one = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    __m128i sums[4];
    for (int lane = 0; lane < 4; lane++)
        sums[lane] = _mm_loadu_si128((const __m128i *)(from + 16 * lane));
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128(-1));
    size_t at = 64;
    for (; size - at >= 64; at += 64)
        for (int lane = 0; lane < 4; lane++)
            sums[lane] = folded(sums[lane], by_four,
                                _mm_loadu_si128((const __m128i *)(from + at + 16 * lane)));
    __m128i sum = folded(sums[0], by_one, sums[1]);
    sum = folded(sum, by_one, sums[2]);
    sum = folded(sum, by_one, sums[3]);
    for (; size - at >= 16; at += 16)
        sum = folded(sum, by_one, _mm_loadu_si128((const __m128i *)(from + at)));
    octet rest[16];
    _mm_storeu_si128((__m128i *)rest, sum);
    return ~crc_of_rest(crc_of_rest(0, rest, sizeof rest), from + at, size - at);
}

static bool can_fold(void) {
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}
#else
static uint32_t quick_crc(const octet *from, size_t size) {
    (void)from, (void)size;
    return 0;
}

static bool can_fold(void) { return false; }
#endif

static bool checksum(const Form *form, const Text *text, uint32_t *sum) {
    if (!form->checksum) {
        *sum = quick_crc(text->octets, text->size);
        return true;
    }
    PyObject *made = PyObject_CallFunction(form->checksum, "y#", (const char *)text->octets,
                                           (Py_ssize_t)text->size);
    if (!made) return false;
    *sum = (uint32_t)PyLong_AsUnsignedLong(made);
    Py_DECREF(made);
    return !PyErr_Occurred();
}

/* ---- The line of a record -------------------------------------------------------------------- */

static bool begins_at_one(const Form *form) {
    if (form->roots <= 1) return true;
    PyErr_SetString(PyExc_TypeError, "this is the form of an element");
    return false;
}

static bool put_sum(Text *text, uint32_t sum) {
    static const char digits[] = "0123456789abcdef";
    octet last[] = ",\"crc32\":\"01234567\"}\n";
    for (int at = 0; at < 8; at++) last[10 + at] = (octet)digits[sum >> (28 - 4 * at) & 15];
    return put(text, last, sizeof last - 1);
}

static PyObject *record_method(PyObject *object, PyObject *root) {
    const Form *form = (const Form *)object;
    if (!begins_at_one(form)) return NULL;
    Text text;
    PyObject *made = NULL;
    begin(&text, false);
    bool done = fill_json(&text, form, &root);
    if (done && text.is_beyond && text.has_plain_del) {
        end(&text);
        begin(&text, true);
        done = fill_json(&text, form, &root);
    }
    uint32_t sum;
    if (done && checksum(form, &text, &sum) && put_sum(&text, sum))
        made = PyBytes_FromStringAndSize((const char *)text.octets, (Py_ssize_t)text.size);
    end(&text);
    return made;
}

/* ---- The line of the log --------------------------------------------------------------------- */

/* Whether a value needs no quotes in the log. */
static bool stands_plainly(const octet *from, size_t size) {
    for (size_t at = 0; at < size; at++)
        if (!is_plain_sign(from[at]) || from[at] == ' ' || from[at] == '=') return false;
    return size > 0;
}

static bool put_quoted(Text *text, PyObject *value) {
    return put_one(text, '"') && put_text(text, value) && put_one(text, '"');
}

static bool put_word(Text *text, PyObject *value) {
    if (PyLong_Check(value)) return put_number(text, value);
    if (!PyUnicode_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "no value of a log line");
        return false;
    }
    Py_ssize_t size;
    const char *octets = PyUnicode_AsUTF8AndSize(value, &size);
    if (octets && stands_plainly((const octet *)octets, (size_t)size))
        return put(text, octets, (size_t)size);
    if (!octets) PyErr_Clear();
    return put_quoted(text, value);
}

/* The text of a reason, a comma as \x2c, appended without quotes if that is possible; `*is_odd`
   where it is not. */
static bool put_plain_part(Text *text, PyObject *part, bool *is_odd) {
    Py_ssize_t size;
    const char *octets = PyUnicode_Check(part) ? PyUnicode_AsUTF8AndSize(part, &size) : NULL;
    if (!octets) {
        PyErr_Clear();
        *is_odd = true;
        return true;
    }
    *is_odd |= (size && !stands_plainly((const octet *)octets, (size_t)size))
               || memchr(octets, ',', (size_t)size);
    return *is_odd || put(text, octets, (size_t)size);
}

static bool put_plain_reason(Text *text, PyObject *reason, bool *is_odd) {
    PyObject *code = PyObject_GetAttr(reason, name_of_code);
    PyObject *about = code ? PyObject_GetAttr(reason, name_of_about) : NULL;
    bool done = about && put_plain_part(text, code, is_odd);
    if (done && !(PyUnicode_Check(about) && !PyUnicode_GetLength(about)))
        done = put_one(text, '(') && put_plain_part(text, about, is_odd) && put_one(text, ')');
    Py_XDECREF(code);
    Py_XDECREF(about);
    return done;
}

/* What Python makes of it: the texts of the reasons, each comma inside one escaped, joined. */
static PyObject *joined_reasons(PyObject *value, bool is_list, Py_ssize_t count) {
    PyObject *comma = PyUnicode_FromString(","), *escape = PyUnicode_FromString("\\x2c");
    PyObject *texts = PyList_New(0), *made = NULL;
    bool done = comma && escape && texts;
    for (Py_ssize_t at = 0; done && at < count; at++) {
        PyObject *one = item(value, is_list, at);
        PyObject *said = one ? PyObject_Str(one) : NULL;
        PyObject *safe = said ? PyUnicode_Replace(said, comma, escape, -1) : NULL;
        done = safe && !PyList_Append(texts, safe);
        Py_XDECREF(said);
        Py_XDECREF(safe);
    }
    if (done) made = PyUnicode_Join(comma, texts);
    Py_XDECREF(comma);
    Py_XDECREF(escape);
    Py_XDECREF(texts);
    return made;
}

static bool put_joined_reasons(Text *text, PyObject *value) {
    bool is_list, is_odd = false;
    Py_ssize_t count;
    if (!is_several(value, &is_list, &count)) return false;
    size_t before = text->size;
    for (Py_ssize_t at = 0; !is_odd && at < count; at++) {
        PyObject *one = item(value, is_list, at);
        if (!one || (at && !put_one(text, ',')) || !put_plain_reason(text, one, &is_odd))
            return false;
    }
    if (!is_odd && text->size > before) return true;
    text->size = before;
    PyObject *whole = joined_reasons(value, is_list, count);
    bool done = whole && put_word(text, whole);
    Py_XDECREF(whole);
    return done;
}

/* One text of each element of a list, joined by commas. */
static PyObject *joined_texts(const Piece *piece, const Lists *lists) {
    PyObject *comma = PyUnicode_FromString(","), *texts = PyList_New(0), *made = NULL;
    bool done = comma && texts;
    for (Py_ssize_t at = 0; done && at < lists->count; at++) {
        PyObject *elements[MOST_ROOTS] = {NULL};
        PyObject *one = take_elements(lists, at, elements)
                            ? taken(piece->each->pieces->paths, elements) : NULL;
        drop(elements);
        done = one && !PyList_Append(texts, one);
        Py_XDECREF(one);
    }
    if (done) made = PyUnicode_Join(comma, texts);
    Py_XDECREF(comma);
    Py_XDECREF(texts);
    return made;
}

static bool put_joined_texts(Text *text, const Piece *piece, PyObject *const *roots) {
    Lists lists;
    if (piece->each->pieces->kind != VALUE) {
        PyErr_SetString(PyExc_TypeError, "one text of each is wanted there");
        return false;
    }
    PyObject *whole = take_lists(&lists, piece, roots) ? joined_texts(piece, &lists) : NULL;
    leave(&lists);
    bool done = whole && put_word(text, whole);
    Py_XDECREF(whole);
    return done;
}

static bool put_fact(Text *text, const Piece *piece, PyObject *const *roots) {
    if (piece->kind == EACH) return put_joined_texts(text, piece, roots);
    PyObject *value = taken(piece->paths, roots);
    bool done = value != NULL;
    if (done) switch (piece->kind) {
        case VALUE: done = put_word(text, value); break;
        case REASONS: done = put_joined_reasons(text, value); break;
        case COUNT: done = put_count(text, value); break;
        default: done = false; PyErr_SetString(PyExc_TypeError, "no place of a log line");
        }
    Py_XDECREF(value);
    return done;
}

static PyObject *words_method(PyObject *object, PyObject *root) {
    const Form *form = (const Form *)object;
    if (!begins_at_one(form)) return NULL;
    Text text;
    PyObject *made = NULL;
    begin(&text, true); /* json escapes DEL */
    bool done = true;
    for (const Piece *piece = form->pieces; done && piece < form->pieces + form->count; piece++)
        done = put_fixed(&text, form, piece)
               && (piece->kind == NOTHING || put_fact(&text, piece, &root));
    if (done)
        made = PyBytes_FromStringAndSize((const char *)text.octets, (Py_ssize_t)text.size);
    end(&text);
    return made;
}

/* What Python says of a number that is rounded to two digits behind the point. */
static bool put_rounded(Text *text, double number) {
    /* Python's own way is three conversions, and two hundred cache lines of code.  Where the number
       is not half way between two hundredths, or next to it, the nearest one is found by counting:
       up to this bound the product is wrong by a thousandth at most. */
    if (number >= 0 && number < 1e11) {
        double hundredths = number * 100, beyond = hundredths - (double)(long long)hundredths;
        if (beyond < 0.49 || beyond > 0.51) {
            unsigned long long nearest = (unsigned long long)hundredths + (beyond > 0.5);
            bool is_long = nearest % 10;
            return put_digits(text, nearest / 100, 1) && put_one(text, '.')
                   && put_digits(text, nearest % 100 / (is_long ? 1 : 10), is_long ? 2 : 1);
        }
    }
    char *digits = PyOS_double_to_string(number, 'f', 2, 0, NULL), *said = NULL;
    double rounded = digits ? PyOS_string_to_double(digits, NULL, NULL) : -1;
    if (digits && !(rounded == -1 && PyErr_Occurred()))
        said = PyOS_double_to_string(rounded, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
    bool done = said && put(text, said, strlen(said));
    PyMem_Free(digits);
    PyMem_Free(said);
    return done;
}

static PyObject *log_line(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "a time, words and a duration are needed");
        return NULL;
    }
    double at = PyFloat_AsDouble(args[0]);
    double seconds = PyErr_Occurred() ? 0 : PyFloat_AsDouble(args[2]);
    char moment[MOMENT_SIGNS];
    if (PyErr_Occurred() || !write_moment(moment, at)) return NULL;
    Text text;
    PyObject *made = NULL;
    begin(&text, true);
    if (put(&text, moment, MOMENT_SIGNS)
        && put(&text, PyBytes_AsString(args[1]), (size_t)PyBytes_Size(args[1]))
        && put(&text, " ms=", 4) && put_rounded(&text, seconds * 1000) && put_one(&text, '\n'))
        made = PyBytes_FromStringAndSize((const char *)text.octets, (Py_ssize_t)text.size);
    end(&text);
    return made;
}

/* ---- The type -------------------------------------------------------------------------------- */

/* A path as the twin gives it: the number of its root, and descriptors. */
static bool take_path(Form *self, Path *path, PyObject *given) {
    Py_ssize_t count = PyTuple_Check(given) ? PyTuple_Size(given) : 0;
    path->root = count ? PyLong_AsSsize_t(PyTuple_GetItem(given, 0)) : -1;
    if (path->root < 0 || path->root >= MOST_ROOTS) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no path");
        return false;
    }
    if (self->roots <= path->root) self->roots = path->root + 1;
    path->steps = PyMem_Calloc((size_t)count, sizeof(Step));
    if (!path->steps) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t at = 1; at < count; at++, path->count++) {
        PyObject *descriptor = PyTuple_GetItem(given, at);
        descrgetfunc get = (descrgetfunc)PyType_GetSlot(Py_TYPE(descriptor), Py_tp_descr_get);
        if (!get) {
            PyErr_SetString(PyExc_TypeError, "a path is made of descriptors");
            return false;
        }
        path->steps[path->count] = (Step){Py_NewRef(descriptor), get};
    }
    return true;
}

static bool take_paths(Form *self, Piece *piece, PyObject *given) {
    Py_ssize_t count = PyTuple_Size(given);
    if (count > MOST_ROOTS
        || (piece->kind == EACH ? count < piece->each->roots || !count
                                : count != (piece->kind != NOTHING))) {
        PyErr_SetString(PyExc_ValueError, "a path to each value is needed");
        return false;
    }
    while (piece->path_count < count) {
        Py_ssize_t at = piece->path_count++;
        if (!take_path(self, piece->paths + at, PyTuple_GetItem(given, at))) return false;
    }
    return true;
}

static bool take_piece(Form *self, Piece *piece, size_t at, PyObject *given, PyTypeObject *type) {
    PyObject *fixed, *paths, *each;
    int kind;
    if (!PyArg_ParseTuple(given, "SiO!O", &fixed, &kind, &PyTuple_Type, &paths, &each))
        return false;
    if (kind < VALUE || kind > MOMENT
        || (kind == EACH) != PyObject_TypeCheck(each, type)) {
        PyErr_SetString(PyExc_ValueError, "no kind of value");
        return false;
    }
    size_t size = (size_t)PyBytes_Size(fixed);
    octet *octets = PyMem_Realloc(self->fixed, at + size + 1);
    if (!octets) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(octets + at, PyBytes_AsString(fixed), size);
    self->fixed = octets;
    *piece = (Piece){.start = at, .end = at + size, .kind = kind};
    if (kind == EACH) piece->each = (Form *)Py_NewRef(each);
    return take_paths(self, piece, paths);
}

static void forget_piece(Piece *piece) {
    for (Path *path = piece->paths; path < piece->paths + piece->path_count; path++) {
        while (path->count > 0) Py_DECREF(path->steps[--path->count].descriptor);
        PyMem_Free(path->steps);
    }
    Py_XDECREF((PyObject *)piece->each);
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *words[] = {"pieces", "checksum", NULL};
    PyObject *pieces, *checksum = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!|O", words, &PyTuple_Type, &pieces,
                                     &checksum))
        return NULL;
    Py_ssize_t count = PyTuple_Size(pieces);
    if (!count || (checksum == Py_None && !can_fold())) {
        PyErr_SetString(PyExc_ValueError, "pieces, and perhaps a checksum, are needed");
        return NULL;
    }
    Form *self = new_object(type);
    if (!self) return NULL;
    if (checksum != Py_None) self->checksum = Py_NewRef(checksum);
    self->pieces = PyMem_Calloc((size_t)count, sizeof(Piece));
    bool done = self->pieces != NULL;
    if (!self->pieces) PyErr_NoMemory();
    for (size_t at = 0; done && self->count < count;) {
        Piece *piece = self->pieces + self->count;
        /* Counted before it is whole: what it holds is given back with the others. */
        PyObject *given = PyTuple_GetItem(pieces, self->count++);
        done = take_piece(self, piece, at, given, type);
        at = piece->end;
        if (done && (piece->kind == NOTHING) != (self->count == count)) {
            PyErr_SetString(PyExc_ValueError, "the last piece, and only that, has no value");
            done = false;
        }
    }
    if (done) return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void deallocate(PyObject *object) {
    Form *self = (Form *)object;
    for (Py_ssize_t at = 0; at < self->count; at++) forget_piece(self->pieces + at);
    PyMem_Free(self->pieces);
    PyMem_Free(self->fixed);
    Py_XDECREF(self->checksum);
    free_object(object);
}

static PyMethodDef form_methods[] = {
    {"record", record_method, METH_O,
     "The line of a record, of what is taken from this object: JSON and its checksum."},
    {"words", words_method, METH_O,
     "Words of a log line, of what is taken from this object; nothing can break out of them."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Lines of one form; see message_lines.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, form_methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter.archive._message_lines.Form",
    .basicsize = sizeof(Form),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

/* ---- The id of a record ---------------------------------------------------------------------- */

/* The time in the first octets, most significant first; false with an exception set. */
static bool put_time(PyObject *milliseconds, octet octets[ID_OCTETS]) {
    int overflow;
    long long time = PyLong_AsLongLongAndOverflow(milliseconds, &overflow);
    for (int at = 0; at < ID_OCTETS - RANDOM; at++) octets[at] = (octet)(time >> (40 - 8 * at));
    if (!overflow && time >= 0) return true;
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_OverflowError, "no time of a record");
    return false;
}

static bool are_time_and_random(PyObject *const *args, Py_ssize_t count, Py_ssize_t random) {
    if (count == 2 && PyLong_Check(args[0]) && PyBytes_Check(args[1])
        && PyBytes_Size(args[1]) == random)
        return true;
    PyErr_Format(PyExc_TypeError, "milliseconds and %zd random octets are needed", random);
    return false;
}

static PyObject *record_id(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    octet octets[ID_OCTETS];
    if (!are_time_and_random(args, count, RANDOM) || !put_time(args[0], octets)) return NULL;
    memcpy(octets + ID_OCTETS - RANDOM, PyBytes_AsString(args[1]), RANDOM);
    char made[ID_SIGNS];
    write_id(octets, made);
    return PyUnicode_FromStringAndSize(made, ID_SIGNS);
}

static PyObject *identity(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    octet octets[ID_OCTETS];
    if (!are_time_and_random(args, count, RANDOM + SALT) || !put_time(args[0], octets))
        return NULL;
    static const char digits[] = "0123456789abcdef";
    const octet *random = (const octet *)PyBytes_AsString(args[1]);
    char id[ID_SIGNS], salt[2 * SALT];
    memcpy(octets + ID_OCTETS - RANDOM, random, RANDOM);
    write_id(octets, id);
    for (int at = 0; at < SALT; at++) {
        salt[2 * at] = digits[random[RANDOM + at] >> 4];
        salt[2 * at + 1] = digits[random[RANDOM + at] & 15];
    }
    return pair(PyUnicode_FromStringAndSize(id, sizeof id),
                PyUnicode_FromStringAndSize(salt, sizeof salt));
}

/* ---- The checksum of a line that is read ------------------------------------------------------ */

static PyObject *checksum_before(PyObject *Py_UNUSED(module), PyObject *const *args,
                                 Py_ssize_t count) {
    Py_ssize_t tail = count == 2 && PyBytes_Check(args[0]) ? PyLong_AsSsize_t(args[1]) : -1;
    if (tail < 0 || !can_fold()) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a line, and octets not to look at, are needed");
        return NULL;
    }
    Py_ssize_t size = PyBytes_Size(args[0]);
    size_t seen = size > tail ? (size_t)(size - tail) : 0;
    return PyLong_FromUnsignedLong(quick_crc((const octet *)PyBytes_AsString(args[0]), seen));
}

static PyMethodDef methods[] = {
    {"checksum_before", FASTCALL(checksum_before),
     "checksum_before(line, tail): CRC-32 of a line but for its last octets; needs CAN_CHECK."},
    {"record_id", FASTCALL(record_id),
     "record_id(milliseconds, randomness): a ULID."},
    {"identity", FASTCALL(identity),
     "identity(milliseconds, randomness): a ULID, and a salt in hexadecimal."},
    {"log_line", FASTCALL(log_line),
     "log_line(at, words, seconds): one line of the log, its end included."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
    if (!name_of_code) name_of_code = PyUnicode_InternFromString("code");
    if (!name_of_about) name_of_about = PyUnicode_InternFromString("about");
    if (!name_of_code || !name_of_about) return -1;
    if (add_type(module, &spec) < 0) return -1;
    return PyModule_AddIntConstant(module, "CAN_CHECK", can_fold());
}

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_message_lines", .m_size = 0, .m_methods = methods,
    .m_slots = parts,
};

PyMODINIT_FUNC PyInit__message_lines(void) { return PyModuleDef_Init(&definition); }
