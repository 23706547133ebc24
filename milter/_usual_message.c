/* The packets of a usual message, taken in one call: the compiled twin of usual_message.py.
 *
 * Takes the same packets, makes the same of them and stops at the same one;
 * tests/milter/test_usual_message.py compares the two.  Here because a message is some thirty
 * packets, and a frame of the interpreter for each kind of them cost more than to read them.
 *
 * Bounds: those of incoming.py, header_section.py and transaction.py; what it makes for a packet is
 * linear in its octets, and it holds nothing of its own.
 */

#include "_incoming.h"
#include "_fault.h"
#include <structmember.h>

/* What came of a message so far, as conversation.py has it. */
enum { NO_MESSAGE, REVERSE_PATH, RECIPIENT, ENDED };

/* ---- What is gathered ------------------------------------------------------------------------ */

enum { CLIENT, LISTENER, RELAY, TLS, OF_CONNECTION, /* as they stand in the connection */
       PATH = OF_CONNECTION, LOGIN, LOGIN_METHOD, QUEUE_ID, RECIPIENTS, HEADER, FIELD_LIST, BODY,
       ALL_NAMES, PARTS };

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    double envelope_at, body_at;
    Py_ssize_t recipient_octets;
    bool has_too_many;
} Gathered;

#define PART(name, place) \
    {name, T_OBJECT_EX, offsetof(Gathered, parts) + (place) * sizeof(PyObject *), 0, NULL}

static PyMemberDef members[] = {
    PART("client", CLIENT),
    PART("listener", LISTENER),
    PART("relay", RELAY),
    PART("tls", TLS),
    PART("reverse_path", PATH),
    PART("login", LOGIN),
    PART("login_method", LOGIN_METHOD),
    PART("queue_id", QUEUE_ID),
    PART("recipients", RECIPIENTS),
    PART("header", HEADER),
    PART("fields", FIELD_LIST),
    PART("body", BODY),
    PART("_names", ALL_NAMES),
    {"envelope_at", T_DOUBLE, offsetof(Gathered, envelope_at), 0, NULL},
    {"body_at", T_DOUBLE, offsetof(Gathered, body_at), 0, NULL},
    {"_recipient_octets", T_PYSSIZET, offsetof(Gathered, recipient_octets), 0, NULL},
    {"_has_too_many", T_BOOL, offsetof(Gathered, has_too_many), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int visit_parts(PyObject *self, visitproc visit, void *arg) {
    for (int place = 0; place < PARTS; place++) Py_VISIT(((Gathered *)self)->parts[place]);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear_parts(PyObject *self) {
    for (int place = 0; place < PARTS; place++) Py_CLEAR(((Gathered *)self)->parts[place]);
    return 0;
}

/* Classes that inherit from it are the collector's, so that it must be, too. */
static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear_parts(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "What the MTA told of one message; see usual_message.py."},
    {Py_tp_dealloc, deallocate},
    {Py_tp_traverse, visit_parts},
    {Py_tp_clear, clear_parts},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter._incoming.Gathered",
    .basicsize = sizeof(Gathered),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

/* ---- What it is gathered with ---------------------------------------------------------------- */

/* usual_message.Means, place for place; borrowed from the tuple. */
typedef struct {
    PyObject *transaction, *reverse_path, *path, *recipient, *header, *body, *fields, *clock;
    PyObject *of_mail, *of_recipient, *of_end;
    Py_ssize_t short_octets, recurring, most_octets;
} Means;

enum { OF_MAIL = 3, OF_RECIPIENT = 3, OBJECTS = 11, NUMBERS = 3 };

/* 0, or -1 with an exception set. */
static int read_means(PyObject *given, const Known *known, Means *means) {
    if (!PyTuple_Check(given) || PyTuple_Size(given) != OBJECTS + NUMBERS) {
        PyErr_SetString(PyExc_TypeError, "these are not the means");
        return -1;
    }
    PyObject **objects[OBJECTS] = {&means->transaction, &means->reverse_path, &means->path,
                                   &means->recipient,   &means->header,       &means->body,
                                   &means->fields,      &means->clock,        &means->of_mail,
                                   &means->of_recipient, &means->of_end};
    Py_ssize_t *numbers[NUMBERS] = {&means->short_octets, &means->recurring, &means->most_octets};
    for (Py_ssize_t place = 0; place < OBJECTS; place++)
        *objects[place] = PyTuple_GetItem(given, place);
    for (Py_ssize_t place = 0; place < NUMBERS; place++)
        *numbers[place] = PyLong_AsSsize_t(PyTuple_GetItem(given, OBJECTS + place));
    if (PyErr_Occurred()) return -1;
    if (!PyType_Check(means->transaction) || !PyType_Check(means->reverse_path)
        || !PyType_IsSubtype((PyTypeObject *)means->transaction, (PyTypeObject *)known->gathered)
        || !PyType_IsSubtype((PyTypeObject *)means->reverse_path, &PyTuple_Type)
        || !PyTuple_Check(means->of_mail) || PyTuple_Size(means->of_mail) != OF_MAIL
        || !PyTuple_Check(means->of_recipient)
        || PyTuple_Size(means->of_recipient) != OF_RECIPIENT || !PyUnicode_Check(means->of_end)) {
        PyErr_SetString(PyExc_TypeError, "means of another kind");
        return -1;
    }
    return 0;
}

typedef struct {
    const Known *known;
    Means means;
    Incoming *incoming;
    PyObject *session, *octets;
    Gathered *message; /* that the session is at; NULL: none, or one of another kind */
    int stage;
} Run;

/* The value that a macro has, as `session` asks for it: one that is no text is none.
   NULL with an exception set. */
static PyObject *told_one(const Run *run, PyObject *name) {
    PyObject *value = macro_of(run->incoming, name);
    if (!value && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        value = Py_NewRef(Py_None);
    }
    return value;
}

/* Those of several; 0, or -1 with an exception set. */
static int told(const Run *run, PyObject *names, PyObject **values) {
    for (Py_ssize_t place = 0; place < PyTuple_Size(names); place++)
        if (!(values[place] = told_one(run, PyTuple_GetItem(names, place)))) return -1;
    return 0;
}

static void drop(PyObject **values, Py_ssize_t count) {
    while (count--) Py_XDECREF(values[count]);
}

/* The strings of a payload that ends in NUL, from the one at `at` on: bytes, or text where wanted.
   NULL with an exception set. */
static PyObject *strings(const char *at, const char *end, bool is_text) {
    PyObject *list = PyList_New(0);
    while (list && at < end) {
        const char *border = memchr(at, 0, (size_t)(end - at));
        PyObject *one = is_text ? PyUnicode_DecodeUTF8(at, border - at, "surrogateescape")
                                : PyBytes_FromStringAndSize(at, border - at);
        if (!one || PyList_Append(list, one)) Py_CLEAR(list);
        Py_XDECREF(one);
        at = border + 1;
    }
    PyObject *made = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return made;
}

/* ---- MAIL ------------------------------------------------------------------------------------ */

static PyObject *made_path(const Run *run, const char *payload, const char *end,
                           PyObject *resolved) {
    const char *border = memchr(payload, 0, (size_t)(end - payload));
    PyObject *argument = PyBytes_FromStringAndSize(payload, border - payload);
    PyObject *path =
        argument ? PyObject_CallFunctionObjArgs(run->means.path, argument, NULL) : NULL;
    PyObject *esmtp = path ? strings(border + 1, end, true) : NULL;
    PyObject *parts = esmtp ? PyTuple_Pack(3, path, resolved, esmtp) : NULL;
    PyObject *made = parts ? named_tuple(run->means.reverse_path, parts) : NULL;
    Py_XDECREF(parts);
    Py_XDECREF(esmtp);
    Py_XDECREF(path);
    Py_XDECREF(argument);
    return made;
}

/* 0, or -1 with an exception set. */
static int fill_message(const Run *run, Gathered *message, PyObject *login, PyObject *method) {
    const Means *means = &run->means;
    PyObject **parts = message->parts, *const *names = run->known->names;
    PyObject *connection = PyObject_GetAttr(run->session, names[CONNECTION]);
    if (connection && PyTuple_Check(connection) && PyTuple_Size(connection) == OF_CONNECTION)
        for (int place = 0; place < OF_CONNECTION; place++)
            parts[place] = Py_NewRef(PyTuple_GetItem(connection, place));
    else if (connection)
        PyErr_SetString(PyExc_TypeError, "a connection has four parts");
    Py_XDECREF(connection);
    if (PyErr_Occurred()) return -1;
    PyObject *canonicalization = PyObject_GetAttr(run->session, names[CANONICALIZATION]);
    if (!canonicalization) return -1;
    parts[BODY] = PyObject_CallFunctionObjArgs(means->body, canonicalization, NULL);
    Py_DECREF(canonicalization);
    if (!parts[BODY]) return -1;
    parts[HEADER] = PyObject_CallFunctionObjArgs(means->header, NULL);
    if (!parts[HEADER]) return -1;
    parts[FIELD_LIST] = PyObject_GetAttr(parts[HEADER], names[FIELDS]);
    parts[RECIPIENTS] = PyList_New(0);
    PyObject *none = PyUnicode_FromStringAndSize(NULL, 0);
    if (!none || !parts[FIELD_LIST] || !parts[RECIPIENTS]) {
        Py_XDECREF(none);
        return -1;
    }
    parts[LOGIN] = Py_NewRef(login == Py_None ? none : login);
    parts[LOGIN_METHOD] = Py_NewRef(method == Py_None ? none : method);
    parts[QUEUE_ID] = none;
    parts[ALL_NAMES] = Py_NewRef(Py_None);
    return 0;
}

/* Returns whether the message began; else an exception may be set. */
static bool begin(Run *run, const char *payload, const char *end) {
    PyObject *values[OF_MAIL] = {NULL, NULL, NULL};
    Gathered *message = NULL;
    forget_macros_after(run->incoming, 'M');
    bool is_done = !told(run, run->means.of_mail, values);
    PyObject *path = is_done ? made_path(run, payload, end, values[0]) : NULL;
    if (path) message = new_object((PyTypeObject *)run->means.transaction);
    if (message) {
        message->parts[PATH] = Py_NewRef(path);
        is_done = !fill_message(run, message, values[1], values[2]);
        PyObject *answer =
            is_done ? PyObject_CallMethodObjArgs(run->session, run->known->names[BEGIN],
                                                 (PyObject *)message, NULL)
                    : NULL;
        is_done = answer != NULL;
        Py_XDECREF(answer);
    } else
        is_done = false;
    Py_XDECREF(path);
    drop(values, OF_MAIL);
    if (is_done) {
        Py_XDECREF((PyObject *)run->message);
        run->message = message;
        run->stage = REVERSE_PATH;
    } else
        Py_XDECREF((PyObject *)message);
    return is_done;
}

/* ---- RCPT ------------------------------------------------------------------------------------ */

static Py_ssize_t letters(PyObject *value) {
    return PyUnicode_Check(value) ? PyUnicode_GetLength(value) : 0;
}

/* Whether `_recipient` may remember it, and it is not too much. */
static bool is_recurring(const Run *run, const char *payload, const char *end,
                         PyObject *const *values, Py_ssize_t *octets) {
    const Gathered *message = run->message;
    Py_ssize_t size = end - payload - 1;
    *octets = message->recipient_octets + size + letters(values[0]) + letters(values[1])
              + letters(values[2]);
    return !message->has_too_many && size <= run->means.short_octets && *octets >= 0
           && *octets <= run->means.most_octets
           && memchr(payload, 0, (size_t)(end - payload)) == end - 1
           && PyList_Size(message->parts[RECIPIENTS]) < run->means.recurring;
}

/* 0, or -1 with an exception set. */
static int add(Run *run, const char *payload, const char *end, PyObject *const *values) {
    Gathered *message = run->message;
    Py_ssize_t octets;
    if (!is_recurring(run, payload, end, values, &octets)) {
        PyObject *arguments = strings(payload, end, false), *done = NULL;
        if (arguments)
            done = PyObject_CallMethodObjArgs((PyObject *)message,
                                              run->known->names[ADD_RECIPIENT], arguments,
                                              values[0], values[1], values[2], NULL);
        Py_XDECREF(arguments);
        Py_XDECREF(done);
        return done ? 0 : -1;
    }
    message->recipient_octets = octets;
    PyObject *argument = PyBytes_FromStringAndSize(payload, end - payload - 1), *made = NULL;
    if (argument)
        made = PyObject_CallFunctionObjArgs(run->means.recipient, argument, values[0], values[1],
                                            values[2], NULL);
    int failed = made ? PyList_Append(message->parts[RECIPIENTS], made) : -1;
    Py_XDECREF(argument);
    Py_XDECREF(made);
    return failed;
}

/* 0, or -1 with an exception set. */
static int note_time(const Run *run, double *time) {
    PyObject *now = PyObject_CallFunctionObjArgs(run->means.clock, NULL);
    double seconds = now ? PyFloat_AsDouble(now) : -1.0;
    Py_XDECREF(now);
    if (PyErr_Occurred()) return -1;
    *time = seconds;
    return 0;
}

/* 0; -1 when a fault is nobody's. */
static int take_recipient(Run *run, const char *payload, const char *end) {
    PyObject *values[OF_RECIPIENT] = {NULL, NULL, NULL};
    forget_macros_after(run->incoming, 'R');
    run->stage = RECIPIENT;
    int failed = told(run, run->means.of_recipient, values) || add(run, payload, end, values)
                 || note_time(run, &run->message->envelope_at);
    drop(values, OF_RECIPIENT);
    return failed ? tell_fault(run->session, "recipient") : 0;
}

/* ---- What follows ---------------------------------------------------------------------------- */

/* Where the run of header fields at `at` ends; SIZE_MAX with an exception set. */
static size_t take_fields(const Run *run, size_t at) {
    PyObject *begin = PyLong_FromSize_t(at), *end = NULL;
    if (begin)
        end = PyObject_CallFunctionObjArgs(run->means.fields, run->session, run->octets, begin,
                                           NULL);
    size_t stopped = end ? PyLong_AsSize_t(end) : SIZE_MAX;
    Py_XDECREF(begin);
    Py_XDECREF(end);
    return stopped;
}

/* 0; -1 when a fault is nobody's. */
static int take_body(Run *run, size_t at, size_t end) {
    PyObject *first = PyLong_FromSize_t(at), *last = PyLong_FromSize_t(end), *done = NULL;
    Gathered *message = run->message;
    int failed = message->body_at != 0.0 ? 0 : note_time(run, &message->body_at);
    if (first && last && !failed)
        done = PyObject_CallMethodObjArgs(message->parts[BODY], run->known->names[UPDATE_PART],
                                          run->octets, first, last, NULL);
    Py_XDECREF(first);
    Py_XDECREF(last);
    Py_XDECREF(done);
    return done ? 0 : tell_fault(run->session, "body");
}

/* 0, or -1 with an exception set. */
static int give_up(Run *run) {
    PyObject *done = PyObject_CallMethodObjArgs(run->session, run->known->names[ABORT], Py_None,
                                                NULL);
    Py_XDECREF(done);
    Py_CLEAR(run->message);
    run->stage = NO_MESSAGE;
    return done ? 0 : -1;
}

/* 0, or -1 with an exception set. */
static int take_end(Run *run) {
    if (run->message) {
        PyObject *queue_id = told_one(run, run->means.of_end);
        if (queue_id == Py_None) {
            Py_DECREF(queue_id);
            queue_id = PyUnicode_FromStringAndSize(NULL, 0);
        }
        if (!queue_id) return -1;
        PyObject *before = run->message->parts[QUEUE_ID];
        run->message->parts[QUEUE_ID] = queue_id;
        Py_XDECREF(before);
    }
    run->stage = ENDED;
    return 0;
}

/* 1: the packet was taken, or more of its kind up to `*end`; 0: it is not for us; -1: with an
   exception set. */
static int take_packet(Run *run, int command, size_t at, size_t *end) {
    const char *octets = PyBytes_AsString(run->octets);
    const char *payload = octets + at + HEAD, *stop = octets + *end;
    bool is_text = stop > payload && !stop[-1];
    size_t stopped;
    switch (command) {
    case 'D':
        if (!keep_macros(run->incoming, payload, (size_t)(stop - payload))) return 1;
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) return -1;
        PyErr_Clear();
        return 0;
    case 'A':
        return give_up(run) ? -1 : 1;
    case 'M':
        if (!is_text
            || (const char *)memchr(payload, 0, (size_t)(stop - payload)) - payload
                   > run->means.short_octets)
            return 0;
        if (begin(run, payload, stop)) return 1;
        /* Whatever it was: who tells of faults makes the same one of this packet. */
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return -1;
        PyErr_Clear();
        return 0;
    case 'R':
        if (!is_text || run->stage == NO_MESSAGE || !run->message) return 0;
        return take_recipient(run, payload, stop) ? -1 : 1;
    case 'L':
        if (run->stage != RECIPIENT) return 0;
        stopped = take_fields(run, at);
        if (stopped == SIZE_MAX) return -1;
        *end = stopped;
        return stopped > at;
    case 'B':
        if (run->stage != RECIPIENT || !run->message) return 0;
        return take_body(run, at + HEAD, *end) ? -1 : 1;
    case 'E':
        if (run->stage != RECIPIENT || stop > payload) return 0;
        return take_end(run) ? -1 : 1;
    default:
        return 0;
    }
}

/* Where it stopped; SIZE_MAX with an exception set. */
static size_t take_packets(Run *run, size_t at) {
    const octet *data = (const octet *)PyBytes_AsString(run->octets);
    size_t size = (size_t)PyBytes_Size(run->octets);
    while (at <= size && size - at >= HEAD && run->stage != ENDED) {
        size_t length = length_at(data + at), end = at + PREFIX + length;
        if (!length || length > LONGEST + 1 || length > size - at - PREFIX) break;
        int taken = take_packet(run, data[at + PREFIX], at, &end);
        if (taken < 0) return SIZE_MAX;
        if (!taken) break;
        at = end;
    }
    return at;
}

/* Python may have taken parts away, or put others in. */
static bool is_whole(const Gathered *message) {
    return message->parts[BODY] && message->parts[RECIPIENTS]
           && PyList_Check(message->parts[RECIPIENTS]);
}

PyObject *take_usual(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    const Known *known = PyModule_GetState(module);
    Run run = {.known = known};
    if (given != 5 || (PyObject *)Py_TYPE(args[1]) != known->incoming || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "a session, incoming, octets, a position and a stage are needed");
        return NULL;
    }
    run.session = args[0];
    run.incoming = (Incoming *)args[1];
    run.octets = args[2];
    size_t at = PyLong_AsSize_t(args[3]);
    if (PyErr_Occurred()) return NULL;
    long stage = PyLong_AsLong(args[4]);
    if (PyErr_Occurred()) return NULL;
    if (stage < NO_MESSAGE || stage > RECIPIENT) {
        PyErr_SetString(PyExc_ValueError, "no stage of a message");
        return NULL;
    }
    run.stage = (int)stage;
    PyObject *means = PyObject_GetAttr(run.session, known->names[USUAL]);
    PyObject *message =
        means && !read_means(means, known, &run.means)
            ? PyObject_GetAttr(run.session, known->names[TRANSACTION])
            : NULL;
    if (!message) {
        Py_XDECREF(means);
        return NULL;
    }
    if ((PyObject *)Py_TYPE(message) == run.means.transaction && is_whole((Gathered *)message))
        run.message = (Gathered *)message;
    else
        Py_DECREF(message);
    size_t stopped = take_packets(&run, at);
    Py_XDECREF((PyObject *)run.message);
    Py_DECREF(means);
    return stopped == SIZE_MAX ? NULL
                               : pair(PyLong_FromSize_t(stopped), PyLong_FromLong(run.stage));
}

int know_usual(PyObject *module, Known *known) {
    static const char *const names[NAMES] = {
        [ABORT] = "abort", [ADD_RECIPIENT] = "add_recipient", [BEGIN] = "begin",
        [CANONICALIZATION] = "body_canonicalization", [CONNECTION] = "connection",
        [FIELDS] = "fields", [TRANSACTION] = "transaction",
        [UPDATE_PART] = "update_part", [USUAL] = "usual"};
    for (size_t name = 0; name < NAMES; name++)
        if (!(known->names[name] = PyUnicode_InternFromString(names[name]))) return -1;
    known->gathered = PyType_FromSpec(&spec);
    return known->gathered ? PyModule_AddType(module, (PyTypeObject *)known->gathered) : -1;
}
