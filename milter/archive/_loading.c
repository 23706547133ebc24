/* Rows of a record as tables take them: the compiled twin of `loader.by_python`.
 *
 * They are tuples, or, for SQLite, are written into packs: many rows in one piece of memory, which
 * _many_rows.c gives to SQLite.  A `Gathering` holds the packs of a batch, see _gathering.c, the
 * other file of this extension.
 *
 * It puts ids in the place of what stands in dictionaries and packs recipients and signatures (the
 * formats are those of packed.py, which says more about them), octet by octet as the twin does; or
 * says None, which leaves the record to the twin, with its exceptions.  Then nothing was added.
 * tests/archive/test_loading.py compares the two.
 *
 * Of a run the rows of a message and of its header section are tuples, as `make_values` of
 * _usual_rows.c makes them: where each column stands there is found out once.
 *
 * Bounds: time and memory are linear in the record.
 */

#include "_gathering.h"
#include "_many_rows.h"
#include "_record_text.h"

#define MOST_COLUMNS 64
#define LARGEST (1LL << 60) /* moments beyond are no moments */
#define SECOND 1000000
#define COPY 1              /* schema.COPY */
/* Flags of packed.py. */
#define HAS_ADDRESS 1
#define SPELLING 2
#define RAW 4
#define RESOLVED_AS_KNOWN 8
#define RESOLVED 16
#define ESMTP 32
#define ABOUT 64
#define SAME_ROUTE 128
#define AUID 1
#define EXPIRES 2

enum {
    N_MESSAGE, N_RECIPIENTS, N_SIGNATURES, N_SECTION, N_PARTICIPANTS, N_DOMAINS, N_TERMS, N_KIND,
    N_ADDRESS, N_SPELLING, N_RAW, N_RESOLVED, N_ESMTP, N_ABOUT, N_ROUTE, N_FORM, N_AUID,
    N_SIGNED_AT, N_EXPIRES_AT, N_RECORDED_AT, N_CIRCUMSTANCE, N_VERDICT, N_PATH, N_AUTHOR,
    N_RETENTION, NAMES
};
static const char *const name_texts[NAMES] = {
    "message", "recipients", "signatures", "header_section", "participants", "domains",
    "header_terms", "kind", "address", "spelling", "raw", "resolved", "esmtp", "about", "route",
    "form", "auid", "signed_at", "expires_at", "recorded_at", "circumstance", "verdict",
    "reverse_path", "author", "retention",
};

/* Ids by what they stand for, and lists of rows, in the order in which they are given. */
enum { I_ADDRESS, I_DOMAIN, I_CIRCUMSTANCE, I_VERDICT, I_ROUTE, I_FORM, IDS };
#define ARRIVAL 3 /* loader.Arrival: segment, position, rows */
enum { L_MESSAGES, L_SECTIONS, L_PARTICIPANTS, L_DOMAINS, L_TERMS, LISTS };

/* Columns of `message` that are no value of the record's. */
enum { C_SEGMENT, C_POSITION, C_CIRCUMSTANCE, C_VERDICT, C_PATH, C_AUTHOR, C_RECIPIENTS,
       C_SIGNATURES, MADE };
static const char *const made_texts[MADE] = {
    "segment_id", "position", "circumstance_id", "verdict_id", "reverse_path_id", "author_id",
    "recipients", "signatures",
};

#define NOWHERE (-1)
#define THE_SECTION (-2) /* the header section as it is stored, which comes beside the tuple */

typedef struct {
    PyObject *names[MOST_COLUMNS];
    int made[MOST_COLUMNS]; /* which of those that are made; -1: a value of the record's */
    Py_ssize_t places[MOST_COLUMNS]; /* in tuples; or one of the above */
    Py_ssize_t count;
    Py_ssize_t given; /* how many values tuples have */
} Columns;

typedef struct {
    PyObject_HEAD
    PyObject *names[NAMES];
    Py_ssize_t places[NAMES]; /* in tuples of a message; NOWHERE: it is no column of those */
    Columns message, section;
    Buffer packed; /* in which values are packed */
    /* What was looked up last in each dictionary, and what stood there: from record to record it is
       often the same object, and tuples have to be hashed each time.  While a call lasts only. */
    PyObject *asked[IDS], *found[IDS];
} Packer;

static PyObject *gathering_type;

/* ---- Small things ---------------------------------------------------------------------------- */

static Outcome append_octet(Packer *self, int value) {
    octet one = (octet)value;
    return append(&self->packed, &one, 1);
}

static Outcome append_identifier(Packer *self, long long value) {
    octet octets[8];
    unsigned long long bits = (unsigned long long)value;
    for (int place = 7; place >= 0; place--, bits >>= 8) octets[place] = (octet)(bits & 0xFF);
    return append(&self->packed, octets, sizeof octets);
}

static Outcome append_varint(Packer *self, unsigned long long number) {
    for (; number > 127; number >>= 7) TRY(append_octet(self, (int)(number & 127) | 128));
    return append_octet(self, (int)number);
}

static Outcome append_zigzag(Packer *self, long long number) {
    unsigned long long size = (unsigned long long)(number < 0 ? -number : number);
    return append_varint(self, number < 0 ? (size << 1) - 1 : size << 1);
}

static PyObject *packed(const Packer *self) {
    return PyBytes_FromStringAndSize((const char *)self->packed.octets,
                                     (Py_ssize_t)self->packed.size);
}

/* What stands for `key`; None where nothing does.  Not our own. */
static Outcome look_up(PyObject *dictionary, PyObject *key, PyObject **value) {
    if (!PyDict_Check(dictionary)) return UNUSUAL;
    *value = PyDict_GetItemWithError(dictionary, key);
    if (!*value && PyErr_Occurred()) return ERROR;
    if (!*value) *value = Py_None;
    return DONE;
}

/* The same of what has to be there. */
static Outcome get(PyObject *dictionary, PyObject *key, PyObject **value) {
    if (!PyDict_Check(dictionary)) return UNUSUAL;
    *value = PyDict_GetItemWithError(dictionary, key);
    if (*value) return DONE;
    return PyErr_Occurred() ? ERROR : UNUSUAL;
}

/* One of the values that tables do not take as they are. */
static Outcome get_of_message(const Packer *self, PyObject *message, int name, PyObject **value) {
    if (!PyTuple_Check(message)) return get(message, self->names[name], value);
    Py_ssize_t place = self->places[name];
    if (place < 0 || place >= PyTuple_Size(message)) return UNUSUAL;
    *value = PyTuple_GetItem(message, place);
    return DONE;
}

static Outcome number_of(PyObject *object, long long *number) {
    int overflow;
    if (!PyLong_Check(object)) return UNUSUAL;
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow ? UNUSUAL : DONE;
}

static Outcome moment_of(PyObject *object, long long *moment) {
    TRY(number_of(object, moment));
    return *moment > -LARGEST && *moment < LARGEST ? DONE : UNUSUAL;
}

/* What stands for `key` in one of the dictionaries of ids; None where nothing does. */
static Outcome find_id(Packer *self, PyObject *const ids[IDS], int which, PyObject *key,
                       PyObject **value) {
    if (key == self->asked[which]) {
        *value = self->found[which];
        return DONE;
    }
    TRY(look_up(ids[which], key, value));
    self->asked[which] = key;
    self->found[which] = *value;
    return DONE;
}

static void forget_ids(Packer *self) {
    memset(self->asked, 0, sizeof self->asked);
}

/* ---- Recipients ------------------------------------------------------------------------------ */

static Outcome append_text(Packer *self, PyObject *value) {
    char *octets;
    Py_ssize_t size;
    if (PyBytes_Check(value)) {
        if (PyBytes_AsStringAndSize(value, &octets, &size) < 0) return ERROR;
        TRY(append_varint(self, (unsigned long long)size));
        return append(&self->packed, octets, (size_t)size);
    }
    if (!PyUnicode_Check(value)) return UNUSUAL;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    if (!text) return ERROR;
    TRY(append_varint(self, (unsigned long long)size));
    return append(&self->packed, text, (size_t)size);
}

typedef struct {
    PyObject *text;
    int flag;
} Tail;

/* Flags of a recipient, and its texts in order; returns how many. */
static Outcome find_tail(Packer *self, PyObject *recipient, Tail tail[5], size_t *count,
                         int *flags) {
    static const struct {
        int name, flag;
    } texts[] = {{N_SPELLING, SPELLING}, {N_RAW, RAW}, {N_RESOLVED, RESOLVED}, {N_ESMTP, ESMTP},
                 {N_ABOUT, ABOUT}};
    *count = 0;
    for (size_t number = 0; number < 5; number++) {
        PyObject *text;
        TRY(get(recipient, self->names[texts[number].name], &text));
        if (text == Py_None) continue;
        if (texts[number].flag == RESOLVED && PyBytes_Check(text) && !PyBytes_Size(text)) {
            *flags |= RESOLVED_AS_KNOWN;
            continue;
        }
        *flags |= texts[number].flag;
        tail[(*count)++] = (Tail){text, texts[number].flag};
    }
    return DONE;
}

static Outcome append_recipient(Packer *self, PyObject *recipient, PyObject *const ids[IDS],
                                bool is_copy, PyObject **last) {
    PyObject *address, *route, *address_id, *route_id;
    long long number = 0, by = 0;
    Tail tail[5];
    size_t count;
    TRY(get(recipient, self->names[N_ADDRESS], &address));
    TRY(get(recipient, self->names[N_ROUTE], &route));
    TRY(find_id(self, ids, I_ADDRESS, address, &address_id));
    TRY(find_id(self, ids, I_ROUTE, route, &route_id));
    if (!is_copy && route_id == Py_None) return UNUSUAL;
    int flags = address_id == Py_None ? 0 : HAS_ADDRESS;
    TRY(find_tail(self, recipient, tail, &count, &flags));
    if (address_id != Py_None) TRY(number_of(address_id, &number));
    if (route_id != Py_None) TRY(number_of(route_id, &by));
    bool is_same = is_copy;
    if (!is_same && *last) {
        long long before;
        TRY(number_of(*last, &before));
        is_same = before == by;
    }
    if (is_same) flags |= SAME_ROUTE;
    TRY(append_octet(self, flags));
    if (flags & HAS_ADDRESS) TRY(append_identifier(self, number));
    if (!is_same) TRY(append_identifier(self, by));
    for (size_t place = 0; place < count; place++) TRY(append_text(self, tail[place].text));
    *last = route_id == Py_None ? NULL : route_id;
    return DONE;
}

static Outcome pack_recipients(Packer *self, PyObject *recipients, PyObject *const ids[IDS]) {
    if (!PyList_Check(recipients)) return UNUSUAL;
    Py_ssize_t count = PyList_Size(recipients), envelope = 0;
    long long kind = 0;
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *value;
        bool is_behind = kind == COPY;
        TRY(get(PyList_GetItem(recipients, number), self->names[N_KIND], &value));
        TRY(number_of(value, &kind));
        if (kind != COPY && (kind || is_behind)) return UNUSUAL;
        envelope += !kind;
    }
    PyObject *last = NULL;
    self->packed.size = 0;
    TRY(append_octet(self, 1));
    TRY(append_varint(self, (unsigned long long)envelope));
    for (Py_ssize_t number = 0; number < count; number++)
        TRY(append_recipient(self, PyList_GetItem(recipients, number), ids, number >= envelope,
                             &last));
    return DONE;
}

/* ---- Signatures ------------------------------------------------------------------------------ */

static Outcome append_signature(Packer *self, PyObject *signature, PyObject *const ids[IDS],
                                long long second) {
    PyObject *form, *auid, *signed_at, *expires_at, *form_id;
    long long number, at, until = 0;
    TRY(get(signature, self->names[N_FORM], &form));
    TRY(get(signature, self->names[N_AUID], &auid));
    TRY(get(signature, self->names[N_SIGNED_AT], &signed_at));
    TRY(get(signature, self->names[N_EXPIRES_AT], &expires_at));
    TRY(find_id(self, ids, I_FORM, form, &form_id));
    if (form_id == Py_None) return UNUSUAL;
    TRY(number_of(form_id, &number));
    TRY(moment_of(signed_at, &at));
    if (expires_at != Py_None) TRY(moment_of(expires_at, &until));
    TRY(append_octet(self, (auid == Py_None ? 0 : AUID) | (expires_at == Py_None ? 0 : EXPIRES)));
    TRY(append_identifier(self, number));
    TRY(append_zigzag(self, at - second));
    if (auid != Py_None) TRY(append_text(self, auid));
    return expires_at == Py_None ? DONE : append_zigzag(self, until - at);
}

static Outcome pack_signatures(Packer *self, PyObject *message, PyObject *signatures,
                               PyObject *const ids[IDS]) {
    PyObject *recorded_at;
    long long moment;
    TRY(get_of_message(self, message, N_RECORDED_AT, &recorded_at));
    TRY(moment_of(recorded_at, &moment));
    long long second = moment / SECOND - (moment % SECOND < 0);
    self->packed.size = 0;
    TRY(append_octet(self, 1));
    Py_ssize_t count = PyList_Size(signatures);
    for (Py_ssize_t number = 0; number < count; number++)
        TRY(append_signature(self, PyList_GetItem(signatures, number), ids, second));
    return DONE;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

typedef struct {
    PyObject *key, *segment_id, *position;       /* not our own */
    PyObject *message, *recipients, *signatures; /* likewise */
    PyObject *section; /* likewise: how it is stored; NULL: that stands among its columns */
    PyObject *packed_recipients, *packed_signatures;
} Given;

static Outcome made_value(Packer *self, const Given *given, PyObject *const ids[IDS], int which,
                          PyObject **value) {
    static const struct {
        int name, ids;
    } known[] = {[C_CIRCUMSTANCE] = {N_CIRCUMSTANCE, I_CIRCUMSTANCE},
                 [C_VERDICT] = {N_VERDICT, I_VERDICT},
                 [C_PATH] = {N_PATH, I_ADDRESS},
                 [C_AUTHOR] = {N_AUTHOR, I_ADDRESS}};
    PyObject *key;
    switch (which) {
    case C_SEGMENT: *value = given->segment_id; return DONE;
    case C_POSITION: *value = given->position; return DONE;
    case C_RECIPIENTS: *value = given->packed_recipients; return DONE;
    case C_SIGNATURES: *value = given->packed_signatures; return DONE;
    default: break;
    }
    TRY(get_of_message(self, given->message, known[which].name, &key));
    TRY(find_id(self, ids, known[which].ids, key, value));
    bool is_needed = which == C_CIRCUMSTANCE || which == C_VERDICT;
    return is_needed && *value == Py_None ? UNUSUAL : DONE;
}

static Outcome make_row(Packer *self, const Columns *columns, PyObject *values, const Given *given,
                        PyObject *const ids[IDS], PyObject **row) {
    *row = PyTuple_New(columns->count + 1);
    if (!*row) return ERROR;
    Py_INCREF(given->key);
    if (PyTuple_SetItem(*row, 0, given->key) < 0) return ERROR;
    for (Py_ssize_t place = 0; place < columns->count; place++) {
        PyObject *value;
        if (columns->made[place] < 0) TRY(get(values, columns->names[place], &value));
        else TRY(made_value(self, given, ids, columns->made[place], &value));
        Py_INCREF(value);
        if (PyTuple_SetItem(*row, place + 1, value) < 0) return ERROR;
    }
    return DONE;
}

static Outcome put_column(Packer *self, const Columns *columns, Py_ssize_t column,
                          PyObject *values, const Given *given, PyObject *const ids[IDS],
                          Buffer *pack) {
    PyObject *value;
    if (columns->made[column] < 0) TRY(get(values, columns->names[column], &value));
    else TRY(made_value(self, given, ids, columns->made[column], &value));
    return put_value(pack, value);
}

/* The same of a tuple with all its values. */
static Outcome put_place(Packer *self, const Columns *columns, Py_ssize_t column,
                         PyObject *values, const Given *given, PyObject *const ids[IDS],
                         Buffer *pack) {
    PyObject *value;
    Py_ssize_t place = columns->places[column];
    if (place >= 0) return put_value(pack, PyTuple_GetItem(values, place));
    if (place == THE_SECTION) return given->section ? put_value(pack, given->section) : UNUSUAL;
    if (columns->made[column] < 0) return UNUSUAL;
    TRY(made_value(self, given, ids, columns->made[column], &value));
    return put_value(pack, value);
}

static Outcome gather_row(Packer *self, const Columns *columns, PyObject *values,
                          const Given *given, PyObject *const ids[IDS], Buffer *pack) {
    bool is_tuple = PyTuple_Check(values);
    if (is_tuple && PyTuple_Size(values) != columns->given) return UNUSUAL;
    if (!pack->size) TRY(begin_pack(pack, columns->count + 1));
    TRY(put_value(pack, given->key));
    for (Py_ssize_t column = 0; column < columns->count; column++)
        TRY((is_tuple ? put_place : put_column)(self, columns, column, values, given, ids, pack));
    return DONE;
}

static Outcome pack(Packer *self, Given *given, PyObject *const ids[IDS]) {
    TRY(pack_recipients(self, given->recipients, ids));
    if (!(given->packed_recipients = packed(self))) return ERROR;
    if (!PyList_Check(given->signatures)) return UNUSUAL;
    if (!PyList_Size(given->signatures)) {
        Py_INCREF(Py_None);
        given->packed_signatures = Py_None;
        return DONE;
    }
    TRY(pack_signatures(self, given->message, given->signatures, ids));
    return (given->packed_signatures = packed(self)) ? DONE : ERROR;
}

/* ---- Index ----------------------------------------------------------------------------------- */

/* Rows of id, record and roles.  Two texts can be the same octets, and so have one id. */
static Outcome index_roles(PyObject *held, PyObject *ids, PyObject *key, PyObject *rows) {
    PyObject *who, *roles, *identifier;
    Py_ssize_t place = 0, first = PyList_Size(rows);
    if (!PyDict_Check(held)) return UNUSUAL;
    while (PyDict_Next(held, &place, &who, &roles)) {
        TRY(get(ids, who, &identifier));
        long long number, other;
        TRY(number_of(identifier, &number));
        for (Py_ssize_t before = first; before < PyList_Size(rows); before++) {
            TRY(number_of(PyTuple_GetItem(PyList_GetItem(rows, before), 0), &other));
            if (other == number) return UNUSUAL;
        }
        PyObject *row = PyTuple_Pack(3, identifier, key, roles);
        int failed = row ? PyList_Append(rows, row) : -1;
        Py_XDECREF(row);
        if (failed) return ERROR;
    }
    return DONE;
}

static Outcome index_terms(PyObject *terms, PyObject *key, PyObject *rows) {
    if (!PyTuple_Check(terms)) return UNUSUAL;
    Py_ssize_t count = PyTuple_Size(terms);
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *row = PyTuple_Pack(2, PyTuple_GetItem(terms, place), key);
        int failed = row ? PyList_Append(rows, row) : -1;
        Py_XDECREF(row);
        if (failed) return ERROR;
    }
    return DONE;
}

/* The same into a gathering. */
static Outcome gather_roles(PyObject *held, PyObject *ids, Gathering *to, int which) {
    PyObject *who, *roles, *identifier;
    Py_ssize_t place = 0;
    while (PyDict_Next(held, &place, &who, &roles)) {
        long long number, some;
        TRY(get(ids, who, &identifier));
        TRY(number_of(identifier, &number));
        TRY(number_of(roles, &some));
        TRY(add_role(to, which, number, some));
    }
    return DONE;
}

static Outcome gather_terms(PyObject *terms, Gathering *to) {
    if (!PyTuple_Check(terms)) return UNUSUAL;
    Py_ssize_t count = PyTuple_Size(terms);
    for (Py_ssize_t place = 0; place < count; place++) {
        long long number;
        TRY(number_of(PyTuple_GetItem(terms, place), &number));
        TRY(add_term(to, number));
    }
    return DONE;
}

/* ---- One record ------------------------------------------------------------------------------ */

#define MOST_HELD 256 /* of more, finding one twice would take the square */

static bool are_few(PyObject *const parts[N_KIND]) {
    return PyDict_Check(parts[N_PARTICIPANTS]) && PyDict_Size(parts[N_PARTICIPANTS]) <= MOST_HELD
           && PyDict_Check(parts[N_DOMAINS]) && PyDict_Size(parts[N_DOMAINS]) <= MOST_HELD;
}

static Outcome gather(Packer *self, PyObject *const parts[N_KIND], Given *given,
                      PyObject *const ids[IDS], Gathering *to) {
    given->message = parts[N_MESSAGE];
    given->recipients = parts[N_RECIPIENTS];
    given->signatures = parts[N_SIGNATURES];
    if (!are_few(parts)) return UNUSUAL;
    TRY(pack(self, given, ids));
    TRY(gather_row(self, &self->message, given->message, given, ids, &to->facts[G_MESSAGES]));
    TRY(gather_row(self, &self->section, parts[N_SECTION], given, ids, &to->facts[G_SECTIONS]));
    TRY(gather_roles(parts[N_PARTICIPANTS], ids[I_ADDRESS], to, G_PARTICIPANTS));
    TRY(gather_roles(parts[N_DOMAINS], ids[I_DOMAIN], to, G_DOMAINS));
    return gather_terms(parts[N_TERMS], to);
}

/* The same; what could not be gathered as a whole leaves nothing. */
static Outcome gather_whole(Packer *self, PyObject *const parts[N_KIND], Given *given,
                            PyObject *const ids[IDS], Gathering *to) {
    TRY(begin_record(to, given->key));
    Outcome outcome = gather(self, parts, given, ids, to);
    if (outcome == DONE) end_record(to);
    else forget_record(to);
    return outcome;
}

static Outcome fill(Packer *self, PyObject *const parts[N_KIND], Given *given,
                    PyObject *const ids[IDS], PyObject *const lists[LISTS], PyObject *rows[2]) {
    given->message = parts[N_MESSAGE];
    given->recipients = parts[N_RECIPIENTS];
    given->signatures = parts[N_SIGNATURES];
    TRY(pack(self, given, ids));
    TRY(make_row(self, &self->message, given->message, given, ids, &rows[0]));
    TRY(make_row(self, &self->section, parts[N_SECTION], given, ids, &rows[1]));
    if (lists[L_PARTICIPANTS] != Py_None) {
        if (!are_few(parts)) return UNUSUAL;
        TRY(index_roles(parts[N_PARTICIPANTS], ids[I_ADDRESS], given->key,
                        lists[L_PARTICIPANTS]));
        TRY(index_roles(parts[N_DOMAINS], ids[I_DOMAIN], given->key, lists[L_DOMAINS]));
        TRY(index_terms(parts[N_TERMS], given->key, lists[L_TERMS]));
    }
    return PyList_Append(lists[L_MESSAGES], rows[0]) < 0
                   || PyList_Append(lists[L_SECTIONS], rows[1]) < 0
               ? ERROR
               : DONE;
}

/* Leave the lists as they were. */
static void take_back(PyObject *const lists[LISTS], const Py_ssize_t sizes[LISTS]) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    for (size_t place = 0; place < LISTS; place++)
        if (lists[place] != Py_None)
            PyList_SetSlice(lists[place], sizes[place], PyList_Size(lists[place]), NULL);
    PyErr_Restore(type, value, traceback);
}

static bool are_lists(PyObject *const lists[LISTS], Py_ssize_t sizes[LISTS]) {
    for (size_t place = 0; place < LISTS; place++) {
        if (lists[place] == Py_None && place >= L_PARTICIPANTS) continue;
        if (!PyList_Check(lists[place])) return false;
        sizes[place] = PyList_Size(lists[place]);
    }
    bool has_index = lists[L_PARTICIPANTS] != Py_None;
    return has_index == (lists[L_DOMAINS] != Py_None) && has_index == (lists[L_TERMS] != Py_None);
}

static bool spread(PyObject *tuple, PyObject **to, Py_ssize_t count) {
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) return false;
    for (Py_ssize_t place = 0; place < count; place++) to[place] = PyTuple_GetItem(tuple, place);
    return true;
}

static PyObject *add_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Packer *self = (Packer *)object;
    PyObject *arrival[ARRIVAL], *ids[IDS], *lists[LISTS];
    PyObject *parts[N_KIND] = {NULL}, *rows[2] = {NULL, NULL};
    Py_ssize_t sizes[LISTS];
    bool is_right = count == 4 && spread(args[0], arrival, ARRIVAL) && spread(args[2], ids, IDS);
    Gathering *gathering = NULL;
    if (is_right && PyObject_TypeCheck(args[3], (PyTypeObject *)gathering_type))
        gathering = (Gathering *)args[3];
    if (!is_right || (gathering ? gathering->is_given
                                : !spread(args[3], lists, LISTS) || !are_lists(lists, sizes))) {
        PyErr_SetString(PyExc_TypeError, "add(arrival, key, ids, lists or gathering) expected");
        return NULL;
    }
    Given given = {.key = args[1], .segment_id = arrival[0], .position = arrival[1]};
    Outcome outcome = DONE;
    forget_ids(self);
    for (size_t place = 0; place < N_KIND && outcome == DONE; place++)
        if (!(parts[place] = PyObject_GetAttr(arrival[2], self->names[place]))) outcome = ERROR;
    if (outcome == DONE)
        outcome = gathering ? gather_whole(self, parts, &given, ids, gathering)
                            : fill(self, parts, &given, ids, lists, rows);
    if (outcome != DONE && !gathering) take_back(lists, sizes);
    for (size_t place = 0; place < N_KIND; place++) Py_XDECREF(parts[place]);
    Py_XDECREF(given.packed_recipients);
    Py_XDECREF(given.packed_signatures);
    Py_XDECREF(rows[0]);
    Py_XDECREF(rows[1]);
    if (outcome == ERROR) return NULL;
    return PyBool_FromLong(outcome == DONE);
}

/* ---- A run of records ------------------------------------------------------------------------ */

#define ROW_PARTS (N_KIND + 1) /* of what _usual_rows makes: the record's id, then its rows */

static bool spread_row(PyObject *rows, Py_ssize_t at, PyObject *parts[ROW_PARTS]) {
    return spread(PyList_GetItem(rows, at), parts, ROW_PARTS);
}

/* Rows, their header sections and their keys: lists of as many. */
enum { R_ROWS, R_SECTIONS, R_KEYS, RUN_LISTS };

/* `place`: of the first record, that is its segment and its position there. */
static Outcome gather_run(Packer *self, PyObject *const run[RUN_LISTS], PyObject *const place[2],
                          PyObject *const ids[IDS], Gathering *to, PyObject *left) {
    long long position;
    TRY(number_of(place[1], &position));
    forget_ids(self);
    for (Py_ssize_t at = 0; at < PyList_Size(run[R_ROWS]); at++) {
        PyObject *parts[ROW_PARTS];
        Given given = {.key = PyList_GetItem(run[R_KEYS], at), .segment_id = place[0],
                       .section = PyList_GetItem(run[R_SECTIONS], at)};
        Outcome outcome = spread_row(run[R_ROWS], at, parts) ? DONE : UNUSUAL;
        if (!(given.position = PyLong_FromLongLong(position + at))) return ERROR;
        if (outcome == DONE) outcome = gather_whole(self, parts + 1, &given, ids, to);
        Py_DECREF(given.position);
        Py_XDECREF(given.packed_recipients);
        Py_XDECREF(given.packed_signatures);
        PyObject *number = outcome == UNUSUAL ? PyLong_FromSsize_t(at) : NULL;
        if (number && PyList_Append(left, number) < 0) outcome = ERROR;
        Py_XDECREF(number);
        if (outcome == ERROR || PyErr_Occurred()) return ERROR;
    }
    return DONE;
}

static PyObject *add_run_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    PyObject *ids[IDS], *place[2], *run[RUN_LISTS];
    bool are_lists = count == 4 && spread(args[0], run, RUN_LISTS);
    for (size_t which = 0; are_lists && which < RUN_LISTS; which++)
        are_lists = PyList_Check(run[which]) && PyList_Size(run[which]) == PyList_Size(run[R_ROWS]);
    if (!are_lists || !spread(args[1], place, 2) || !PyLong_Check(place[1])
        || !spread(args[2], ids, IDS)
        || !PyObject_TypeCheck(args[3], (PyTypeObject *)gathering_type)
        || ((Gathering *)args[3])->is_given) {
        PyErr_SetString(
            PyExc_TypeError,
            "add_run((rows, sections, keys), (segment_id, position), ids, gathering) expected");
        return NULL;
    }
    PyObject *left = PyList_New(0);
    if (left && gather_run((Packer *)object, run, place, ids, (Gathering *)args[3], left) != DONE)
        Py_CLEAR(left);
    return left;
}

/* ---- What stands in dictionaries ------------------------------------------------------------- */

/* Sets of values, and what was added last: from record to record it is often the same object. */
enum { S_ADDRESS, S_DOMAIN, S_CIRCUMSTANCE, S_VERDICT, S_ROUTE, S_FORM, S_RETENTION, SETS };

typedef struct {
    PyObject *sets[SETS], *last[SETS]; /* not our own */
} Values;

static Outcome add_to_set(Values *values, int which, PyObject *value) {
    if (value == values->last[which] || value == Py_None) return DONE;
    if (PySet_Add(values->sets[which], value) < 0) return ERROR;
    values->last[which] = value; /* which the set holds, or the record, for as long as this takes */
    return DONE;
}

static Outcome add_keys(Values *values, int which, PyObject *held) {
    PyObject *key, *roles;
    Py_ssize_t place = 0;
    if (!PyDict_Check(held)) return UNUSUAL;
    while (PyDict_Next(held, &place, &key, &roles)) TRY(add_to_set(values, which, key));
    return DONE;
}

static Outcome add_of_each(const Packer *self, Values *values, int which, PyObject *list, int name) {
    if (!PyList_Check(list)) return UNUSUAL;
    for (Py_ssize_t at = 0; at < PyList_Size(list); at++) {
        PyObject *value;
        TRY(get(PyList_GetItem(list, at), self->names[name], &value));
        TRY(add_to_set(values, which, value));
    }
    return DONE;
}

static Outcome add_values(const Packer *self, Values *values, PyObject *const parts[N_KIND]) {
    static const struct {
        int name, set;
    } of_message[] = {{N_PATH, S_ADDRESS},           {N_AUTHOR, S_ADDRESS},
                      {N_CIRCUMSTANCE, S_CIRCUMSTANCE}, {N_VERDICT, S_VERDICT},
                      {N_RETENTION, S_RETENTION}};
    for (size_t at = 0; at < sizeof of_message / sizeof *of_message; at++) {
        PyObject *value;
        TRY(get_of_message(self, parts[N_MESSAGE], of_message[at].name, &value));
        TRY(add_to_set(values, of_message[at].set, value));
    }
    TRY(add_keys(values, S_ADDRESS, parts[N_PARTICIPANTS]));
    TRY(add_keys(values, S_DOMAIN, parts[N_DOMAINS]));
    TRY(add_of_each(self, values, S_ADDRESS, parts[N_RECIPIENTS], N_ADDRESS));
    TRY(add_of_each(self, values, S_ROUTE, parts[N_RECIPIENTS], N_ROUTE));
    return add_of_each(self, values, S_FORM, parts[N_SIGNATURES], N_FORM);
}

static PyObject *values_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Values values = {{NULL}, {NULL}};
    bool is_right = count == 2 && PyList_Check(args[0]) && spread(args[1], values.sets, SETS);
    for (size_t which = 0; is_right && which < SETS; which++)
        is_right = PySet_Check(values.sets[which]);
    Outcome outcome = is_right ? DONE : UNUSUAL;
    for (Py_ssize_t at = 0; outcome == DONE && at < PyList_Size(args[0]); at++) {
        PyObject *parts[ROW_PARTS];
        outcome = spread_row(args[0], at, parts) ? DONE : UNUSUAL;
        if (outcome == DONE) outcome = add_values((const Packer *)object, &values, parts + 1);
    }
    if (outcome == DONE) Py_RETURN_NONE;
    if (outcome == UNUSUAL) PyErr_SetString(PyExc_TypeError, "values(rows, seven sets) expected");
    return NULL;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

/* The id of an arrival, or of a row of a run; NULL with or without an exception.  Our own. */
static PyObject *id_of(PyObject *one, PyObject *name) {
    if (!PyTuple_Check(one)) return NULL;
    if (PyTuple_Size(one) == ARRIVAL)
        return PyObject_GetAttr(PyTuple_GetItem(one, ARRIVAL - 1), name);
    if (PyTuple_Size(one) != ROW_PARTS) return NULL;
    PyObject *id = PyTuple_GetItem(one, 0);
    Py_INCREF(id);
    return id;
}

static Outcome append_key(PyObject *keys, PyObject *one, PyObject *name) {
    PyObject *id = id_of(one, name);
    if (!id) return PyErr_Occurred() ? ERROR : UNUSUAL;
    Py_ssize_t size = 0;
    const char *text = PyUnicode_Check(id) ? PyUnicode_AsUTF8AndSize(id, &size) : NULL;
    octet octets[ID_OCTETS];
    bool is_plain = text && read_id(text, (size_t)size, octets);
    if (!text) PyErr_Clear();
    Py_DECREF(id);
    if (!is_plain) return UNUSUAL;
    PyObject *key = PyBytes_FromStringAndSize((const char *)octets, ID_OCTETS);
    int failed = key ? PyList_Append(keys, key) : -1;
    Py_XDECREF(key);
    return failed ? ERROR : DONE;
}

static PyObject *keys_method(PyObject *Py_UNUSED(module), PyObject *arrivals) {
    PyObject *name = PyUnicode_InternFromString("record_id");
    PyObject *made = name ? PyList_New(0) : NULL;
    Outcome outcome = !made ? ERROR : PyList_Check(arrivals) ? DONE : UNUSUAL;
    for (Py_ssize_t at = 0; outcome == DONE && at < PyList_Size(arrivals); at++)
        outcome = append_key(made, PyList_GetItem(arrivals, at), name);
    Py_XDECREF(name);
    if (outcome == DONE) return made;
    Py_XDECREF(made);
    if (outcome == ERROR) return NULL;
    Py_RETURN_NONE;
}

/* ---- The type -------------------------------------------------------------------------------- */

/* Where a name is; NOWHERE where it is none of them. */
static Py_ssize_t place_of(PyObject *names, PyObject *name) {
    for (Py_ssize_t place = 0; place < PyTuple_Size(names); place++)
        if (!PyUnicode_Compare(PyTuple_GetItem(names, place), name)) return place;
    return NOWHERE;
}

static void prepare_column(Columns *columns, Py_ssize_t column, PyObject *name, PyObject *given,
                           bool is_message) {
    columns->made[column] = -1;
    for (int which = 0; is_message && which < MADE; which++)
        if (!PyUnicode_CompareWithASCIIString(name, made_texts[which]))
            columns->made[column] = which;
    columns->places[column] = columns->made[column] < 0 ? place_of(given, name) : NOWHERE;
    if (!is_message && !PyUnicode_CompareWithASCIIString(name, "fields"))
        columns->places[column] = THE_SECTION;
    Py_INCREF(name);
    columns->names[column] = name;
}

static bool are_texts(PyObject *names) {
    bool are = PyTuple_Check(names);
    for (Py_ssize_t place = 0; are && place < PyTuple_Size(names); place++)
        are = PyUnicode_Check(PyTuple_GetItem(names, place));
    if (!are) PyErr_SetString(PyExc_TypeError, "tuples of names expected");
    return are;
}

/* `given`: names of the values of tuples. */
static int prepare_columns(Columns *columns, PyObject *names, PyObject *given, bool is_message) {
    PyObject *list = PySequence_Tuple(names);
    if (!list || !are_texts(list) || !are_texts(given)) {
        Py_XDECREF(list);
        return -1;
    }
    columns->given = PyTuple_Size(given);
    Py_ssize_t count = PyTuple_Size(list);
    for (Py_ssize_t column = 0; column < count && column < MOST_COLUMNS; column++) {
        prepare_column(columns, column, PyTuple_GetItem(list, column), given, is_message);
        columns->count = column + 1;
    }
    Py_DECREF(list);
    if (count <= MOST_COLUMNS) return 0;
    PyErr_SetString(PyExc_ValueError, "no table has so many columns");
    return -1;
}

static bool prepare_names(Packer *self, PyObject *given) {
    for (size_t name = 0; name < NAMES; name++) {
        self->names[name] = PyUnicode_InternFromString(name_texts[name]);
        if (!self->names[name]) return false;
        self->places[name] = place_of(given, self->names[name]);
    }
    return true;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *words[] = {"message", "section", "given", NULL};
    PyObject *message, *section, *of_message, *of_section;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OO(OO)", words, &message, &section, &of_message,
                                     &of_section))
        return NULL;
    Packer *self = new_object(type);
    if (!self) return NULL;
    if (!prepare_columns(&self->message, message, of_message, true)
        && !prepare_columns(&self->section, section, of_section, false)
        && prepare_names(self, of_message))
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void deallocate(PyObject *object) {
    Packer *self = (Packer *)object;
    for (size_t place = 0; place < NAMES; place++) Py_XDECREF(self->names[place]);
    for (Py_ssize_t place = 0; place < self->message.count; place++)
        Py_XDECREF(self->message.names[place]);
    for (Py_ssize_t place = 0; place < self->section.count; place++)
        Py_XDECREF(self->section.names[place]);
    release(&self->packed);
    free_object(object);
}

static PyMethodDef methods[] = {
    {"add", FASTCALL(add_method),
     "Add a record's rows to lists; False for one that is left to the twin."},
    {"add_run", FASTCALL(add_run_method),
     "Gather the rows of many records; the places of those that are left to the twin."},
    {"values", FASTCALL(values_method),
     "Add to sets what stands in dictionaries for many records."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Makes rows as tables take them; see loader.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter.archive._loading.Packer",
    .basicsize = sizeof(Packer),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static PyMethodDef functions[] = {
    {"keys", keys_method, METH_O,
     "Keys of the records of a list of arrivals, or of rows; None where one is not plain."},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module) {
    if (!gathering_type && !(gathering_type = PyType_FromSpec(&gathering_spec))) return -1;
    if (PyModule_AddType(module, (PyTypeObject *)gathering_type) < 0) return -1;
    return add_type(module, &spec);
}

static PyModuleDef_Slot module_parts[] = {{Py_mod_exec, fill_module}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_loading", .m_size = 0, .m_methods = functions,
    .m_slots = module_parts,
};

PyMODINIT_FUNC PyInit__loading(void) { return PyModuleDef_Init(&definition); }
