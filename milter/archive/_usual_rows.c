/* Rows of a usual record made of the pieces of its line: the compiled twin of usual_rows.py.
 *
 * Of a record that came flat it answers what the twin answers, or None, which leaves it to the twin.
 * What is plain it makes itself: addresses in small letters that stand for themselves, lists of
 * mailboxes without quotation marks or comments, reasons about what the record names.  Of whatever
 * is not, it asks the function that the twin would ask, so that no rule of the archive is written
 * down twice but for those that say "as it is".  tests/archive/test_spool_line.py compares the two.
 *
 * Bounds: time and memory are linear in the record; where they would not be (a reason is looked for
 * among the recipients one by one), larger ones are left to the twin.
 */

#include "_growing.h"
#include "_record_text.h"
#include <stddef.h>
#include <stdio.h>

#define MOST_PEOPLE 64      /* recipients and archive recipients of one record */
#define MOST_REASONS 20     /* that many messages have; see verdicts.py */
#define MOST_TERMS 256      /* of one header section */
#define LONGEST_LITERAL 200 /* characters of a reason that names nobody; see verdicts.py */
#define LONGEST_LOCAL 64
#define LONGEST_DOMAIN 253
#define LONGEST_LABEL 63
#define LONGEST_LIST 8192   /* octets of a list of mailboxes */
#define LONGEST_VERDICT 2000
#define LONGEST_NUMBER 20 /* digits */
#define LONGEST_PLACE 64  /* two numbers, and what stands around them */
#define VERDICTS 1024       /* remembered */
#define ANSWERS 2048        /* remembered, of each question */
#define LONGEST_KEY 800     /* octets of what is asked; longer ones are a stranger's */
#define SENDER 1            /* roles, as in schema.py */
#define RECIPIENT 2
#define AUTHOR 4
#define TO 8
#define CC 16
#define INDIRECT 8          /* how far roles are shifted that are held by another name */

/* What is asked, in the order in which `Maker` is given it. */
enum {
    ASK_PATH, ASK_RECIPIENT, ASK_CLIENT, ASK_CIRCUMSTANCE, ASK_AUTHOR, ASK_ESMTP, ASK_FORM,
    ASK_ROUTE, ASK_COPY, ASK_LOGIN_HASH, ASK_MAILBOX, ASK_FOUND_BY, ASK_PARENTS, ASK_AUTHORS,
    ASK_MAILBOXES, ASK_SUBJECT, ASK_IDENTIFIER, ASK_TERMS, ASK_STORABLE, ASK_VERDICT, QUESTIONS
};

/* Keys of rows. */
enum {
    K_ADDRESS, K_SPELLING, K_RAW, K_RESOLVED, K_ESMTP, K_ABOUT, K_KIND, K_ROUTE, K_FORM, K_AUID,
    K_SIGNED_AT, K_EXPIRES_AT, K_FIELDS, K_MESSAGE_ID, K_SUBJECT, K_HAS_SUBJECT, K_SALT,
    K_RECORDED_AT, K_CIRCUMSTANCE, K_VERDICT, K_RETENTION, K_QUEUE_ID, K_CLIENT_ADDRESS,
    K_CLIENT_NAME, K_HELO, K_LOGIN, K_LOGIN_HASH, K_PATH, K_PATH_SPELLING, K_PATH_RAW,
    K_PATH_RESOLVED, K_PATH_ABOUT, K_PATH_ESMTP, K_CROSSING, K_DISPOSITION, K_IS_SIGNED,
    K_ARCHIVE_ADDRESSED, K_AUTHOR_COUNT, K_AUTHOR, K_AUTHOR_SPELLING, K_MESSAGE_ID_HASH, K_SIZE,
    K_NUMBERS, K_BODY_HASH, K_COPY_COUNT, K_BCC_MAPS, K_VERBATIM, K_EVIDENCE_SALT, KEYS
};
static const char *const key_texts[KEYS] = {
    "address", "spelling", "raw", "resolved", "esmtp", "about", "kind", "route", "form", "auid",
    "signed_at", "expires_at", "fields", "message_id", "subject", "has_subject", "salt",
    "recorded_at", "circumstance", "verdict", "retention", "queue_id", "client_address",
    "client_name", "helo", "login", "login_hash", "reverse_path", "reverse_path_spelling",
    "reverse_path_raw", "reverse_path_resolved", "reverse_path_about", "reverse_path_esmtp",
    "crossing", "disposition", "is_signed", "archive_addressed", "author_count", "author",
    "author_spelling", "message_id_hash", "size", "numbers", "body_hash", "copy_count",
    "bcc_maps", "verbatim", "salt",
};
/* Those of the header section's row but for the section itself, then those of the message's. */
#define FIRST_SECTION K_MESSAGE_ID
#define FIRST_MESSAGE K_RECORDED_AT
#define VALUES (KEYS - FIRST_SECTION)

/* Elements of spool_line.Apart and of spool_line.Flat. */
enum { A_VALUES = 2, A_SUBJECT = 5, A_WORDS, A_IDENTIFIER, A_IDENTIFIER_HASH, A_FLAT, APART };
enum {
    F_RECORD_ID, F_RECORDED_AT, F_QUEUE_ID, F_LOGIN, F_COMMON, F_CLIENT, F_PATH, F_ESMTP,
    F_RECIPIENTS, F_COPIES, F_SIGNATURES, F_REASONS, F_CROSSING, F_DISPOSITION,
    F_ARCHIVE_ADDRESSED, F_SIZE, F_NUMBERS, F_BODY_HASH, F_SALT, F_EVIDENCE_SALT, FLAT
};

typedef struct {
    PyObject_HEAD
    PyObject *questions[QUESTIONS];
    PyObject *keys[KEYS];
    PyObject *numbers[3]; /* 0, 1, 2 */
    PyObject *empty;      /* no octets */
    PyObject *blank;      /* a message row with all its keys: a copy need not grow key by key */
    PyObject *verdicts;   /* what was answered, by the reasons with their placeholders */
    PyObject *answers[QUESTIONS]; /* what was answered, by what was asked */
} Maker;

typedef struct {
    const char *text;
    size_t size;
} Text;

/* All that is made of one record; every object is our own. */
typedef struct {
    PyObject *values[VALUES]; /* by key, from FIRST_SECTION on; NULL where nothing was said */
    PyObject *recipients, *signatures, *participants, *domains, *terms;
    PyObject *authors, *to, *cc;
    PyObject *roles; /* by mailbox */
    PyObject *hold[MOST_PEOPLE + 8]; /* so that texts that are compared live as long as this */
    size_t held;
    Text login, client, sender, author, why, people[MOST_PEOPLE], whys[MOST_PEOPLE];
    size_t people_count;
} Making;

/* ---- Small things ---------------------------------------------------------------------------- */

static PyObject *asked(Maker *self, int question, PyObject *one, PyObject *two, PyObject *three) {
    return PyObject_CallFunctionObjArgs(self->questions[question], one, two, three, NULL);
}

/* What was answered, and may be NULL.  Our own. */
static PyObject *remembered(Maker *self, int question, PyObject *key) {
    PyObject *found = PyDict_GetItemWithError(self->answers[question], key);
    Py_XINCREF(found);
    return found;
}

/* Remember an answer, which is given back; NULL where it, or the memory, is missing. */
static PyObject *remember(Maker *self, int question, PyObject *key, PyObject *answer) {
    PyObject *answers = self->answers[question];
    if (!answer) return NULL;
    if (PyDict_Size(answers) >= ANSWERS) PyDict_Clear(answers);
    if (PyDict_SetItem(answers, key, answer) < 0) Py_CLEAR(answer);
    return answer;
}

static bool is_short(PyObject *key) {
    Py_ssize_t size = PyBytes_Check(key) ? PyBytes_Size(key)
                      : PyUnicode_Check(key) ? PyUnicode_GetLength(key) : -1;
    return size >= 0 && size <= LONGEST_KEY;
}

/* Ask what hangs on nothing but what is asked; the same pieces recur in record after record. */
static PyObject *asked_once(Maker *self, int question, PyObject *one, PyObject *two,
                            PyObject *three) {
    if (!is_short(one)) return asked(self, question, one, two, three);
    PyObject *key = two ? PyTuple_Pack(3, one, two, three) : one;
    if (!key) return NULL;
    if (!two) Py_INCREF(key);
    PyObject *found = remembered(self, question, key);
    if (!found && !PyErr_Occurred())
        found = remember(self, question, key, asked(self, question, one, two, three));
    Py_DECREF(key);
    return found;
}

static Outcome put(Maker *self, PyObject *columns, int key, PyObject *value) {
    return PyDict_SetItem(columns, self->keys[key], value) < 0 ? ERROR : DONE;
}

/* A value of the message, or of its header section. */
static Outcome say(Making *made, int key, PyObject *value) {
    PyObject **place = &made->values[key - FIRST_SECTION], *before = *place;
    Py_INCREF(value);
    *place = value;
    Py_XDECREF(before);
    return DONE;
}

/* The same of a value that is given away; NULL is an error. */
static Outcome say_new(Making *made, int key, PyObject *value) {
    if (!value) return ERROR;
    say(made, key, value);
    Py_DECREF(value);
    return DONE;
}

static Outcome get(Maker *self, PyObject *columns, int key, PyObject **value) {
    if (!PyDict_Check(columns)) return UNUSUAL;
    *value = PyDict_GetItemWithError(columns, self->keys[key]);
    if (*value) return DONE;
    return PyErr_Occurred() ? ERROR : UNUSUAL;
}

/* What columns say, which have these keys and no others. */
static Outcome say_columns(Maker *self, Making *made, PyObject *columns, const octet *keys,
                           size_t count) {
    if (!PyDict_Check(columns) || PyDict_Size(columns) != (Py_ssize_t)count) return UNUSUAL;
    for (size_t number = 0; number < count; number++) {
        PyObject *value;
        TRY(get(self, columns, keys[number], &value));
        TRY(say(made, keys[number], value));
    }
    return DONE;
}

static Outcome append_new(PyObject *list, PyObject *value) {
    if (!value) return ERROR;
    int failed = PyList_Append(list, value);
    Py_DECREF(value);
    return failed ? ERROR : DONE;
}

/* The octets of a text, which lives as long as its object; UNUSUAL for lone surrogates. */
static Outcome text_of(PyObject *object, Text *text) {
    Py_ssize_t size;
    *text = (Text){0};
    if (object == Py_None) return DONE;
    if (!PyUnicode_Check(object)) return UNUSUAL;
    text->text = PyUnicode_AsUTF8AndSize(object, &size);
    if (!text->text) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) return ERROR;
        PyErr_Clear();
        return UNUSUAL;
    }
    text->size = (size_t)size;
    return DONE;
}

static Outcome octets_of(PyObject *object, Text *octets) {
    char *text;
    Py_ssize_t size;
    if (!PyBytes_Check(object)) return UNUSUAL;
    if (PyBytes_AsStringAndSize(object, &text, &size) < 0) return ERROR;
    *octets = (Text){text, (size_t)size};
    return DONE;
}

static bool is_same(Text one, Text other) {
    return one.size == other.size && one.text && other.text
           && !memcmp(one.text, other.text, one.size);
}

static bool begins(Text text, const char *with) {
    size_t size = strlen(with);
    return text.size >= size && !memcmp(text.text, with, size);
}

static PyObject *new_text(Text text) {
    return PyUnicode_FromStringAndSize(text.text, (Py_ssize_t)text.size);
}

static PyObject *new_octets(Text text) {
    return PyBytes_FromStringAndSize(text.text, (Py_ssize_t)text.size);
}

/* Something, and only printable signs. */
static bool is_plain(Text text) {
    for (size_t at = 0; at < text.size; at++)
        if (text.text[at] < ' ' || text.text[at] >= 0x7F) return false;
    return text.size > 0;
}

/* What an address that stands for itself is made of; see `terms.mailbox`. */
static bool is_address_sign(char sign) {
    return sign > ' ' && sign < 0x7F && !is_capital(sign) && sign != '"' && sign != '\\'
           && sign != '<' && sign != '>';
}

/* What follows the last @; nothing where there is none. */
static Text domain_of(Text mailbox) {
    for (size_t at = mailbox.size; at; at--)
        if (mailbox.text[at - 1] == '@')
            return (Text){mailbox.text + at, mailbox.size - at};
    return (Text){0};
}

/* ---- Pieces ---------------------------------------------------------------------------------- */

static bool skip(Text *piece, const char *what) {
    if (!begins(*piece, what)) return false;
    size_t size = strlen(what);
    piece->text += size;
    piece->size -= size;
    return true;
}

static bool skip_text(Text *piece, Text what) {
    if (piece->size < what.size || memcmp(piece->text, what.text, what.size)) return false;
    piece->text += what.size;
    piece->size -= what.size;
    return true;
}

/* Printable signs that say what they are, up to a quotation mark or `end`. */
static Text plain_until(Text *piece, char end) {
    size_t size = 0;
    while (size < piece->size && piece->text[size] >= ' ' && piece->text[size] < 0x7F
           && piece->text[size] != '"' && piece->text[size] != '\\' && piece->text[size] != end)
        size++;
    Text found = {piece->text, size};
    piece->text += size;
    piece->size -= size;
    return found;
}

typedef struct {
    Text address, code;
    bool is_resolved;
    int place;
} End;

/* One end of the envelope that is an address and nothing else: ["<a>","a","a","place","code(a)" */
static bool read_end(Text *piece, End *end) {
    static const char *const places[] = {"\"inside\",\"", "\"outside\",\"", "\"unknown\",\""};
    if (!skip(piece, "[\"<")) return false;
    size_t size = 0;
    while (size < piece->size && is_address_sign(piece->text[size])) size++;
    end->address = (Text){piece->text, size};
    piece->text += size;
    piece->size -= size;
    if (!size || !skip(piece, ">\",\"") || !skip_text(piece, end->address) || !skip(piece, "\","))
        return false;
    end->is_resolved = !skip(piece, "null,");
    if (end->is_resolved
        && !(skip(piece, "\"") && skip_text(piece, end->address) && skip(piece, "\",")))
        return false;
    end->place = 0;
    while (!skip(piece, places[end->place]))
        if (++end->place == 3) return false;
    end->code = plain_until(piece, '(');
    return skip(piece, "(") && skip_text(piece, end->address) && skip(piece, ")\"");
}

static bool read_text_or_null(Text *piece, Text *text) {
    *text = (Text){0};
    if (skip(piece, "null")) return true;
    if (!skip(piece, "\"")) return false;
    *text = plain_until(piece, '"');
    return skip(piece, "\"");
}

/* ---- Who takes part -------------------------------------------------------------------------- */

static Outcome add_roles(PyObject *roles, PyObject *who, long more) {
    PyObject *held = PyDict_GetItemWithError(roles, who);
    if (!held && PyErr_Occurred()) return ERROR;
    long before = held ? PyLong_AsLong(held) : 0;
    if (held && (before | more) == before) return DONE;
    PyObject *after = PyLong_FromLong(before | more);
    int failed = after ? PyDict_SetItem(roles, who, after) : -1;
    Py_XDECREF(after);
    return failed ? ERROR : DONE;
}

static Outcome add_all_roles(PyObject *roles, PyObject *names, long more) {
    if (!PyTuple_Check(names)) return UNUSUAL;
    Py_ssize_t count = PyTuple_Size(names);
    for (Py_ssize_t number = 0; number < count; number++)
        TRY(add_roles(roles, PyTuple_GetItem(names, number), more));
    return DONE;
}

/* The form under which an address is looked up; most are their own. */
static PyObject *mailbox_of(Maker *self, PyObject *address) {
    Text text;
    Outcome outcome = text_of(address, &text);
    if (outcome == ERROR) return NULL;
    bool is_own = outcome == DONE && text.size && domain_of(text).size;
    bool is_local = true;
    const char *domain = domain_of(text).text;
    for (size_t at = 0; is_own && at < text.size; at++) {
        char sign = text.text[at];
        is_local = text.text + at < domain;
        is_own = sign >= ' ' && sign < 0x7F && sign != '"' && sign != '\\'
                 && !(is_local && is_capital(sign));
    }
    if (!is_own) return asked(self, ASK_MAILBOX, address, NULL, NULL);
    Py_INCREF(address);
    return address;
}

static Outcome add_people(Maker *self, Making *made, PyObject *texts, long role) {
    if (!PyTuple_Check(texts)) return UNUSUAL;
    Py_ssize_t count = PyTuple_Size(texts);
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *text = PyTuple_GetItem(texts, number);
        int is_there = PyObject_IsTrue(text);
        if (is_there < 0) return ERROR;
        if (!is_there) continue;
        PyObject *mailbox = mailbox_of(self, text);
        if (!mailbox) return ERROR;
        Outcome outcome = add_roles(made->roles, mailbox, role);
        Py_DECREF(mailbox);
        TRY(outcome);
    }
    return DONE;
}

static Outcome add_domain(Making *made, PyObject *domain, PyObject *parents, long held) {
    TRY(add_roles(made->domains, domain, held));
    return add_all_roles(made->domains, parents, held << INDIRECT);
}

/* Under what else a mailbox is found: without extension (none: an empty text), its domain, and the
   parents of that. */
static PyObject *new_found_by(Maker *self, PyObject *mailbox) {
    Text text, name;
    Outcome outcome = text_of(mailbox, &text);
    if (outcome == ERROR) return NULL;
    if (outcome == UNUSUAL || memchr(text.text, '+', text.size)) /* an extension, perhaps */
        return asked(self, ASK_FOUND_BY, mailbox, NULL, NULL);
    name = domain_of(text);
    PyObject *base = PyUnicode_FromStringAndSize("", 0);
    PyObject *domain = name.size ? new_text(name) : PyUnicode_FromStringAndSize("", 0);
    PyObject *parents = !domain    ? NULL
                        : name.size ? asked_once(self, ASK_PARENTS, domain, NULL, NULL)
                                    : PyTuple_New(0);
    PyObject *found = base && parents ? PyTuple_Pack(3, base, domain, parents) : NULL;
    Py_XDECREF(parents);
    Py_XDECREF(domain);
    Py_XDECREF(base);
    return found;
}

static Outcome add_found_by(Maker *self, Making *made, PyObject *mailbox, long held) {
    TRY(add_roles(made->participants, mailbox, held));
    PyObject *found = remembered(self, ASK_FOUND_BY, mailbox);
    if (!found && !PyErr_Occurred()) {
        found = new_found_by(self, mailbox);
        if (is_short(mailbox)) found = remember(self, ASK_FOUND_BY, mailbox, found);
    }
    if (!found) return ERROR;
    Outcome outcome = UNUSUAL;
    if (PyTuple_Check(found) && PyTuple_Size(found) == 3) {
        PyObject *base = PyTuple_GetItem(found, 0), *domain = PyTuple_GetItem(found, 1);
        outcome = DONE;
        if (PyObject_IsTrue(base) == 1)
            outcome = add_roles(made->participants, base, held << INDIRECT);
        if (outcome == DONE && PyObject_IsTrue(domain) == 1)
            outcome = add_domain(made, domain, PyTuple_GetItem(found, 2), held);
    }
    Py_DECREF(found);
    return outcome;
}

static Outcome index_people(Maker *self, Making *made) {
    TRY(add_people(self, made, made->authors, AUTHOR));
    TRY(add_people(self, made, made->to, TO));
    TRY(add_people(self, made, made->cc, CC));
    Py_ssize_t place = 0;
    PyObject *mailbox, *held;
    while (PyDict_Next(made->roles, &place, &mailbox, &held))
        TRY(add_found_by(self, made, mailbox, PyLong_AsLong(held)));
    return DONE;
}

/* ---- The envelope ---------------------------------------------------------------------------- */

static Outcome hold(Making *made, PyObject *object) {
    if (made->held == sizeof made->hold / sizeof *made->hold) return UNUSUAL;
    Py_INCREF(object);
    made->hold[made->held++] = object;
    return DONE;
}

static Outcome tuple_of(PyObject *object, Py_ssize_t size) {
    return PyTuple_Check(object) && PyTuple_Size(object) == size ? DONE : UNUSUAL;
}

static Outcome add_person(Making *made, PyObject *text, PyObject *why) {
    if (made->people_count == MOST_PEOPLE) return UNUSUAL;
    TRY(text_of(text, &made->people[made->people_count]));
    return text_of(why, &made->whys[made->people_count++]);
}

/* What the twin's functions made of a recipient: its columns, its end, and its address. */
static Outcome take_recipient(Maker *self, Making *made, PyObject *found) {
    PyObject *about;
    TRY(tuple_of(found, 3));
    PyObject *columns = PyTuple_GetItem(found, 0), *end = PyTuple_GetItem(found, 1);
    TRY(hold(made, found)); /* it may be forgotten before we are done */
    TRY(get(self, columns, K_ABOUT, &about));
    TRY(add_person(made, PyTuple_GetItem(found, 2), about));
    TRY(tuple_of(end, 5));
    TRY(add_all_roles(made->roles, PyTuple_GetItem(end, 3), RECIPIENT));
    return PyList_Append(made->recipients, columns) < 0 ? ERROR : DONE;
}

static PyObject *text_or_none(Text text) {
    if (text.text) return new_text(text);
    Py_RETURN_NONE;
}

static PyObject *route_of(Maker *self, const End *end, Text mailer, Text host) {
    PyObject *code = new_text(end->code), *by = text_or_none(mailer), *to = text_or_none(host);
    PyObject *found = NULL;
    if (code && by && to)
        found = PyObject_CallFunctionObjArgs(self->questions[ASK_ROUTE], self->numbers[end->place],
                                             code, by, to, NULL);
    Py_XDECREF(code);
    Py_XDECREF(by);
    Py_XDECREF(to);
    return found;
}

static Outcome fill_recipient(Maker *self, PyObject *columns, PyObject *address, PyObject *route,
                              bool is_resolved) {
    TRY(put(self, columns, K_KIND, self->numbers[0]));
    TRY(put(self, columns, K_ROUTE, route));
    TRY(put(self, columns, K_ADDRESS, address));
    TRY(put(self, columns, K_SPELLING, Py_None));
    TRY(put(self, columns, K_RAW, Py_None));
    TRY(put(self, columns, K_RESOLVED, is_resolved ? self->empty : Py_None));
    TRY(put(self, columns, K_ESMTP, Py_None));
    return put(self, columns, K_ABOUT, Py_None);
}

/* The end itself, as `parts.End` has it; what stands for columns nobody asks for. */
static PyObject *plain_end(Maker *self, const End *end, PyObject *address) {
    PyObject *code = new_text(end->code), *mailboxes = PyTuple_Pack(1, address), *made = NULL;
    if (code && mailboxes)
        made = PyTuple_Pack(5, Py_None, self->numbers[end->place], code, mailboxes, Py_True);
    Py_XDECREF(code);
    Py_XDECREF(mailboxes);
    return made;
}

/* Of a plain recipient what the twin's function answers; NULL without an exception: unusual. */
static PyObject *plain_recipient(Maker *self, const End *end, Text mailer, Text host) {
    PyObject *address = new_text(end->address), *found = route_of(self, end, mailer, host);
    PyObject *columns = PyDict_New(), *made_of = NULL, *made = NULL;
    Outcome outcome = address && found && columns ? tuple_of(found, 2) : ERROR;
    if (outcome == DONE && PyTuple_GetItem(found, 1) != Py_True) outcome = UNUSUAL;
    if (outcome == DONE)
        outcome = fill_recipient(self, columns, address, PyTuple_GetItem(found, 0),
                                 end->is_resolved);
    if (outcome == DONE && (made_of = plain_end(self, end, address)))
        made = PyTuple_Pack(3, columns, made_of, address);
    Py_XDECREF(made_of);
    Py_XDECREF(address);
    Py_XDECREF(found);
    Py_XDECREF(columns);
    return made;
}

static PyObject *new_recipient(Maker *self, PyObject *octets) {
    Text piece, mailer, host;
    End end;
    if (octets_of(octets, &piece) == DONE && read_end(&piece, &end) && skip(&piece, ",")
        && read_text_or_null(&piece, &mailer) && skip(&piece, ",")
        && read_text_or_null(&piece, &host) && skip(&piece, ",[]]") && !piece.size)
        return plain_recipient(self, &end, mailer, host);
    return PyErr_Occurred() ? NULL : asked(self, ASK_RECIPIENT, octets, NULL, NULL);
}

static Outcome add_recipient(Maker *self, Making *made, PyObject *octets) {
    if (!PyBytes_Check(octets)) return UNUSUAL;
    PyObject *found = remembered(self, ASK_RECIPIENT, octets);
    if (!found && !PyErr_Occurred()) {
        found = new_recipient(self, octets);
        if (is_short(octets)) found = remember(self, ASK_RECIPIENT, octets, found);
    }
    if (!found) return PyErr_Occurred() ? ERROR : UNUSUAL;
    Outcome outcome = take_recipient(self, made, found);
    Py_DECREF(found);
    return outcome;
}

static Outcome add_copy(Maker *self, Making *made, PyObject *text) {
    PyObject *found = asked_once(self, ASK_COPY, text, NULL, NULL);
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 2);
    if (outcome == DONE && PyTuple_GetItem(found, 1) != Py_True) outcome = UNUSUAL;
    if (outcome == DONE && PyList_Append(made->recipients, PyTuple_GetItem(found, 0)) < 0)
        outcome = ERROR;
    Py_DECREF(found);
    if (outcome == DONE) outcome = add_person(made, text, Py_None);
    return outcome;
}

static Outcome add_envelope(Maker *self, Making *made, PyObject *recipients, PyObject *copies) {
    if (!PyList_Check(recipients) || !PyList_Check(copies)) return UNUSUAL;
    Py_ssize_t count = PyList_Size(recipients), added = PyList_Size(copies);
    if (count + added > MOST_PEOPLE) return UNUSUAL;
    for (Py_ssize_t number = 0; number < count; number++)
        TRY(add_recipient(self, made, PyList_GetItem(recipients, number)));
    for (Py_ssize_t number = 0; number < added; number++)
        TRY(add_copy(self, made, PyList_GetItem(copies, number)));
    return say_new(made, K_COPY_COUNT, PyLong_FromSsize_t(added));
}

/* Circumstances hang on where the sender is, and why. */
static Outcome put_circumstance(Maker *self, Making *made, PyObject *common, PyObject *place,
                                PyObject *code) {
    PyObject *found = asked_once(self, ASK_CIRCUMSTANCE, common, place, code);
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 2);
    if (outcome == DONE)
        outcome = say(made, K_CIRCUMSTANCE, PyTuple_GetItem(found, 0));
    if (outcome == DONE) outcome = say(made, K_RETENTION, PyTuple_GetItem(found, 1));
    Py_DECREF(found);
    return outcome;
}

static Outcome take_sender(Maker *self, Making *made, PyObject *found, PyObject *common) {
    PyObject *about;
    TRY(tuple_of(found, 3));
    TRY(hold(made, found));
    PyObject *end = PyTuple_GetItem(found, 0), *own = PyTuple_GetItem(found, 2);
    TRY(tuple_of(end, 5));
    TRY(get(self, own, K_PATH_ABOUT, &about));
    TRY(text_of(about, &made->why));
    TRY(text_of(PyTuple_GetItem(found, 1), &made->sender));
    static const octet keys[] = {K_PATH, K_PATH_SPELLING, K_PATH_RAW, K_PATH_RESOLVED, K_PATH_ABOUT};
    TRY(say_columns(self, made, own, keys, sizeof keys));
    TRY(put_circumstance(self, made, common, PyTuple_GetItem(end, 1), PyTuple_GetItem(end, 2)));
    return add_all_roles(made->roles, PyTuple_GetItem(end, 3), SENDER);
}

static Outcome fill_sender(Maker *self, PyObject *own, PyObject *address, bool is_resolved) {
    TRY(put(self, own, K_PATH, address));
    TRY(put(self, own, K_PATH_SPELLING, Py_None));
    TRY(put(self, own, K_PATH_RAW, Py_None));
    TRY(put(self, own, K_PATH_RESOLVED, is_resolved ? self->empty : Py_None));
    return put(self, own, K_PATH_ABOUT, Py_None);
}

/* Of a plain sender what the twin's function answers. */
static PyObject *plain_sender(Maker *self, const End *end) {
    PyObject *address = new_text(end->address), *own = PyDict_New(), *made_of = NULL, *made = NULL;
    if (address && own && fill_sender(self, own, address, end->is_resolved) == DONE
        && (made_of = plain_end(self, end, address)))
        made = PyTuple_Pack(3, made_of, address, own);
    Py_XDECREF(made_of);
    Py_XDECREF(address);
    Py_XDECREF(own);
    return made;
}

static PyObject *new_sender(Maker *self, PyObject *octets) {
    Text piece;
    End end;
    if (octets_of(octets, &piece) == DONE && read_end(&piece, &end) && skip(&piece, "]")
        && !piece.size)
        return plain_sender(self, &end);
    return PyErr_Occurred() ? NULL : asked(self, ASK_PATH, octets, NULL, NULL);
}

static Outcome add_sender(Maker *self, Making *made, PyObject *octets, PyObject *common) {
    if (!PyBytes_Check(octets)) return UNUSUAL;
    PyObject *found = remembered(self, ASK_PATH, octets);
    if (!found && !PyErr_Occurred()) {
        found = new_sender(self, octets);
        if (is_short(octets)) found = remember(self, ASK_PATH, octets, found);
    }
    if (!found) return ERROR;
    Outcome outcome = take_sender(self, made, found, common);
    Py_DECREF(found);
    return outcome;
}

/* ---- Client and login ------------------------------------------------------------------------ */

/* The name without the domain of the sender's mailbox, if it ends in that; see `short_name`. */
static Outcome put_client_name(Making *made, PyObject *name) {
    PyObject *sender = made->values[K_PATH - FIRST_SECTION];
    Text text, mailbox, shorter = {0};
    TRY(text_of(name, &text));
    if (text.size && text.text[text.size - 1] == '@') return UNUSUAL;
    if (!sender) return UNUSUAL;
    TRY(text_of(sender, &mailbox));
    Text domain = domain_of(mailbox);
    size_t rest = text.size - domain.size;
    if (!domain.size || text.size <= domain.size || text.text[rest - 1] != '.'
        || memcmp(text.text + rest, domain.text, domain.size))
        return say(made, K_CLIENT_NAME, name);
    char *made_of = malloc(rest + 1);
    if (!made_of) {
        PyErr_NoMemory();
        return ERROR;
    }
    memcpy(made_of, text.text, rest);
    made_of[rest] = '@';
    shorter = (Text){made_of, rest + 1};
    Outcome outcome = say_new(made, K_CLIENT_NAME, new_text(shorter));
    free(made_of);
    return outcome;
}

/* After the sender. */
static Outcome add_client(Maker *self, Making *made, PyObject *octets) {
    PyObject *found = asked_once(self, ASK_CLIENT, octets, NULL, NULL);
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 3);
    if (outcome == DONE) outcome = hold(made, found);
    if (outcome == DONE) outcome = text_of(PyTuple_GetItem(found, 0), &made->client);
    static const octet keys[] = {K_CLIENT_ADDRESS, K_CLIENT_NAME, K_HELO};
    if (outcome == DONE)
        outcome = say_columns(self, made, PyTuple_GetItem(found, 2), keys, sizeof keys);
    if (outcome == DONE) outcome = put_client_name(made, PyTuple_GetItem(found, 1));
    Py_DECREF(found);
    return outcome;
}

static Outcome add_login(Maker *self, Making *made, PyObject *login) {
    TRY(say(made, K_LOGIN, login));
    TRY(text_of(login, &made->login));
    if (!made->login.size) return say(made, K_LOGIN_HASH, Py_None);
    return say_new(made, K_LOGIN_HASH,
                   asked_once(self, ASK_LOGIN_HASH, login, NULL, NULL));
}

/* ---- Lists of mailboxes ---------------------------------------------------------------------- */

/* As `header_fields` has them: what a phrase is made of besides quoted strings, and a local part. */
static bool is_local_sign(char sign) {
    return is_letter_or_digit(sign) || (sign && strchr("!#$%&'*+-./^_`{|}~", sign));
}
static bool is_phrase_sign(char sign) {
    return is_local_sign(sign) || sign == '=' || sign == '?' || sign == ' ' || sign == '\t';
}
static bool is_domain_sign(char sign) {
    return is_letter_or_digit(sign) || sign == '_' || sign == '.' || sign == '-';
}

/* Take out the line breaks of folding; false where there are others. */
static bool unfold(Text value, char *to, Text *unfolded) {
    size_t size = 0;
    for (size_t at = 0; at < value.size; at++) {
        size_t next = at;
        if (value.text[at] == '\r') next++;
        if (next < value.size && value.text[next] == '\n') {
            next++;
            if (next >= value.size || (value.text[next] != ' ' && value.text[next] != '\t'))
                return false;
            at = next;
        } else if (next > at) {
            return false;
        }
        to[size++] = value.text[at];
    }
    *unfolded = (Text){to, size};
    return true;
}

static bool is_domain(Text name) {
    size_t label = 0;
    if (name.size > LONGEST_DOMAIN) return false;
    for (size_t at = 0; at <= name.size; at++) {
        if (at < name.size && name.text[at] != '.') {
            if (!label++ && name.text[at] == '-') return false;
            continue;
        }
        if (!label || label > LONGEST_LABEL || name.text[at - 1] == '-') return false;
        label = 0;
    }
    return true;
}

/* An address from `at` on, which then is behind it; its domain comes in small letters. */
static bool read_address(Text list, size_t *at, char *made, Text *address) {
    size_t start = *at, place = start;
    while (place < list.size && is_local_sign(list.text[place])) place++;
    size_t local = place - start;
    if (!local || local > LONGEST_LOCAL || place >= list.size || list.text[place] != '@')
        return false;
    size_t domain = ++place;
    while (place < list.size && is_domain_sign(list.text[place])) place++;
    Text name = {list.text + domain, place - domain};
    if (!name.size || !is_domain(name)) return false;
    memcpy(made, list.text + start, local + 1);
    for (size_t sign = 0; sign < name.size; sign++)
        made[local + 1 + sign] = (char)(is_capital(name.text[sign]) ? name.text[sign] | 0x20
                                                                    : name.text[sign]);
    *address = (Text){made, local + 1 + name.size};
    *at = place;
    return true;
}

/* A display name, which may be missing, up to the angle bracket. */
static bool skip_phrase(Text list, size_t *at) {
    size_t place = *at;
    while (place < list.size && list.text[place] != '<') {
        if (list.text[place] == '"') {
            for (place++; place < list.size && list.text[place] != '"'; place++)
                if (list.text[place] < ' ' || list.text[place] >= 0x7F || list.text[place] == '\\')
                    return false;
            if (place == list.size) return false;
        } else if (!is_phrase_sign(list.text[place])) {
            return false;
        }
        place++;
    }
    if (place == list.size) return false;
    *at = place + 1;
    return true;
}

static bool read_mailbox(Text list, size_t *at, char *made, Text *address) {
    if (skip_phrase(list, at)) {
        if (!read_address(list, at, made, address)) return false;
        if (*at >= list.size || list.text[(*at)++] != '>') return false;
    } else {
        while (*at < list.size && (list.text[*at] == ' ' || list.text[*at] == '\t')) ++*at;
        if (!read_address(list, at, made, address)) return false;
    }
    while (*at < list.size && (list.text[*at] == ' ' || list.text[*at] == '\t')) ++*at;
    if (*at == list.size) return true;
    return list.text[(*at)++] == ',' && *at < list.size;
}

/* The mailboxes of a list in which each is plain, each once; NULL where one is not. */
static PyObject *plain_mailboxes(Text value) {
    char unfolded[LONGEST_LIST], made[LONGEST_LOCAL + 1 + LONGEST_DOMAIN + 1];
    Text list, address;
    PyObject *found = NULL, *tuple = NULL;
    if (!value.size || value.size > LONGEST_LIST || !unfold(value, unfolded, &list)) return NULL;
    found = PyList_New(0);
    for (size_t at = 0; found && at < list.size;) {
        if (!read_mailbox(list, &at, made, &address)) {
            Py_CLEAR(found);
            break;
        }
        PyObject *text = new_text(address);
        int is_known = text ? PySequence_Contains(found, text) : -1;
        if (is_known < 0 || (!is_known && PyList_Append(found, text) < 0)) Py_CLEAR(found);
        Py_XDECREF(text);
        if (found && PyList_Size(found) > MOST_PEOPLE) Py_CLEAR(found);
    }
    if (found && PyList_Size(found)) tuple = PyList_AsTuple(found);
    Py_XDECREF(found);
    return tuple;
}

/* What the fields of one name say, of which `values` has the values; NULL: there are none. */
static PyObject *mailboxes_of(Maker *self, PyObject *values, int question) {
    Text value;
    if (!values) return PyTuple_New(0);
    if (PyList_Size(values) != 1 || octets_of(PyList_GetItem(values, 0), &value) != DONE)
        return PyErr_Occurred() ? NULL : asked(self, question, values, NULL, NULL);
    PyObject *key = PyList_GetItem(values, 0), *found = remembered(self, question, key);
    if (found || PyErr_Occurred()) return found;
    found = plain_mailboxes(value);
    if (!found && !PyErr_Occurred()) found = asked(self, question, values, NULL, NULL);
    return is_short(key) ? remember(self, question, key, found) : found;
}

/* ---- What is derived from the header section ------------------------------------------------- */

enum { V_FROM, V_TO, V_CC, V_SUBJECT, V_IDENTIFIER, V_NAMES };
static const char *const value_names[V_NAMES] = {"from", "to", "cc", "subject", "message-id"};

/* Values by the name of their field; `is_more`: there are others besides. */
static Outcome sort_values(PyObject *values, PyObject *found[V_NAMES], bool *is_more) {
    if (!PyList_Check(values)) return UNUSUAL;
    Py_ssize_t count = PyList_Size(values);
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *pair = PyList_GetItem(values, number);
        TRY(tuple_of(pair, 2));
        Text name;
        TRY(text_of(PyTuple_GetItem(pair, 0), &name));
        int place = 0;
        while (place < V_NAMES
               && !(strlen(value_names[place]) == name.size && begins(name, value_names[place])))
            place++;
        if (place == V_NAMES) {
            *is_more = true;
            continue;
        }
        if (!found[place] && !(found[place] = PyList_New(0))) return ERROR;
        if (PyList_Append(found[place], PyTuple_GetItem(pair, 1)) < 0) return ERROR;
    }
    return DONE;
}

/* Each once, in order. */
static PyObject *distinct(PyObject *words) {
    long long numbers[MOST_TERMS];
    Py_ssize_t count = PyList_Size(words), kept = 0;
    if (count > MOST_TERMS) Py_RETURN_NONE;
    PyObject *made = PyList_New(0);
    for (Py_ssize_t number = 0; made && number < count; number++) {
        PyObject *word = PyList_GetItem(words, number);
        int is_beyond; /* what takes no note of that takes five times as long */
        numbers[kept] = PyLong_AsLongLongAndOverflow(word, &is_beyond);
        if (is_beyond) PyErr_SetString(PyExc_OverflowError, "a term has 64 bits");
        Py_ssize_t place = 0;
        while (numbers[place] != numbers[kept]) place++;
        if (place < kept) continue;
        kept++;
        if (PyList_Append(made, word) < 0) Py_CLEAR(made);
    }
    PyObject *tuple = made && !PyErr_Occurred() ? PyList_AsTuple(made) : NULL;
    Py_XDECREF(made);
    return tuple;
}

static Outcome put_terms(Maker *self, Making *made, PyObject *words, PyObject *apart,
                         PyObject *indexed, bool is_more) {
    if (is_more)
        made->terms = asked(self, ASK_TERMS, words, PyTuple_GetItem(apart, A_VALUES), indexed);
    else if (PyList_Check(words))
        made->terms = distinct(words);
    else
        made->terms = PyTuple_New(0);
    if (!made->terms) return ERROR;
    return PyTuple_Check(made->terms) ? DONE : UNUSUAL;
}

static Outcome put_subject(Making *made, PyObject *subject) {
    int is_there = PyObject_IsTrue(subject);
    if (is_there < 0) return ERROR;
    TRY(say(made, K_SUBJECT, subject));
    return say(made, K_HAS_SUBJECT, is_there ? Py_True : Py_False);
}

static Outcome add_subject(Maker *self, Making *made, PyObject *subjects, PyObject *apart,
                           PyObject *indexed, bool is_more) {
    PyObject *words = PyTuple_GetItem(apart, A_WORDS);
    if (words != Py_None || !subjects) {
        TRY(put_subject(made, PyTuple_GetItem(apart, A_SUBJECT)));
        return put_terms(self, made, words, apart, indexed, is_more);
    }
    PyObject *found = asked(self, ASK_SUBJECT, subjects, NULL, NULL); /* an encoded one */
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 2);
    if (outcome == DONE) outcome = put_subject(made, PyTuple_GetItem(found, 0));
    if (outcome == DONE)
        outcome = put_terms(self, made, PyTuple_GetItem(found, 1), apart, indexed, is_more);
    Py_DECREF(found);
    return outcome;
}

static Outcome add_identifier(Maker *self, Making *made, PyObject *values, PyObject *apart) {
    PyObject *identifier = PyTuple_GetItem(apart, A_IDENTIFIER);
    if (identifier != Py_None || !values) {
        TRY(say(made, K_MESSAGE_ID, identifier));
        return say(made, K_MESSAGE_ID_HASH,
                   PyTuple_GetItem(apart, A_IDENTIFIER_HASH));
    }
    PyObject *found = asked(self, ASK_IDENTIFIER, PyList_GetItem(values, 0), NULL, NULL);
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 2);
    if (outcome == DONE)
        outcome = say_new(made, K_MESSAGE_ID,
                          asked(self, ASK_STORABLE, PyTuple_GetItem(found, 0), NULL, NULL));
    if (outcome == DONE)
        outcome = say(made, K_MESSAGE_ID_HASH, PyTuple_GetItem(found, 1));
    Py_DECREF(found);
    return outcome;
}

/* The first author: mailbox, octets where they differ, and text. */
static Outcome put_author(Maker *self, Making *made) {
    PyObject *text = PyTuple_Size(made->authors) ? PyTuple_GetItem(made->authors, 0) : NULL;
    if (text) {
        PyObject *mailbox = mailbox_of(self, text);
        if (!mailbox) return ERROR;
        bool is_own = mailbox == text;
        Py_DECREF(mailbox);
        if (is_own && text_of(text, &made->author) == DONE && is_plain(made->author)) {
            TRY(say(made, K_AUTHOR, text));
            return say(made, K_AUTHOR_SPELLING, Py_None);
        }
    }
    PyObject *none = text ? NULL : PyUnicode_FromString("");
    PyObject *found = text || none ? asked(self, ASK_AUTHOR, text ? text : none, NULL, NULL) : NULL;
    Py_XDECREF(none);
    if (!found) return ERROR;
    Outcome outcome = tuple_of(found, 3);
    if (outcome == DONE) outcome = hold(made, found);
    if (outcome == DONE) outcome = say(made, K_AUTHOR, PyTuple_GetItem(found, 0));
    if (outcome == DONE)
        outcome = say(made, K_AUTHOR_SPELLING, PyTuple_GetItem(found, 1));
    if (outcome == DONE) outcome = text_of(PyTuple_GetItem(found, 2), &made->author);
    Py_DECREF(found);
    return outcome;
}

static Outcome add_values(Maker *self, Making *made, PyObject *values[V_NAMES], PyObject *apart,
                          PyObject *indexed, bool is_more) {
    made->authors = mailboxes_of(self, values[V_FROM], ASK_AUTHORS);
    made->to = made->authors ? mailboxes_of(self, values[V_TO], ASK_MAILBOXES) : NULL;
    made->cc = made->to ? mailboxes_of(self, values[V_CC], ASK_MAILBOXES) : NULL;
    if (!made->cc) return ERROR;
    if (!PyTuple_Check(made->authors)) return UNUSUAL;
    TRY(put_author(self, made));
    TRY(say_new(made, K_AUTHOR_COUNT,
                PyLong_FromSsize_t(PyTuple_Size(made->authors))));
    TRY(add_subject(self, made, values[V_SUBJECT], apart, indexed, is_more));
    return add_identifier(self, made, values[V_IDENTIFIER], apart);
}

static Outcome add_derived(Maker *self, Making *made, PyObject *apart, PyObject *indexed) {
    PyObject *values[V_NAMES] = {NULL};
    bool is_more = false;
    Outcome outcome = sort_values(PyTuple_GetItem(apart, A_VALUES), values, &is_more);
    if (outcome == DONE) outcome = add_values(self, made, values, apart, indexed, is_more);
    for (size_t place = 0; place < V_NAMES; place++) Py_XDECREF(values[place]);
    return outcome;
}

/* ---- Reasons --------------------------------------------------------------------------------- */

typedef struct {
    char text[LONGEST_VERDICT];
    size_t size, last; /* where the last reason begins */
    size_t count;
} Reasons;

/* As `verdicts._is_plain`, of printable text. */
static bool names_nobody(Text text) {
    return text.size <= LONGEST_LITERAL && !memchr(text.text, '@', text.size)
           && !memchr(text.text, '{', text.size);
}

static Outcome add_reason(Reasons *reasons, Text code, const char *about, Text literal) {
    size_t size = strlen(about);
    if (reasons->count == MOST_REASONS
        || reasons->size + code.size + size + literal.size + 4 > sizeof reasons->text)
        return UNUSUAL;
    if (reasons->count++) reasons->text[reasons->size++] = '\n';
    reasons->last = reasons->size;
    memcpy(reasons->text + reasons->size, code.text, code.size);
    reasons->size += code.size;
    memcpy(reasons->text + reasons->size, about, size);
    reasons->size += size;
    if (literal.size) memcpy(reasons->text + reasons->size, literal.text, literal.size);
    reasons->size += literal.size;
    return DONE;
}

static const char *origin_of(const Making *made, Text about) {
    if (is_same(made->login, about)) return "({login})";
    return is_same(made->client, about) ? "({client})" : NULL;
}

static const char *sender_of(const Making *made, Text about) {
    if (is_same(made->sender, about)) return "({reverse_path})";
    return is_same(made->author, about) ? "({author})" : NULL;
}

/* Writes a text that ends with a number; where that ends.  printf would take ten times as long. */
static char *put_numbered(char *to, const char *before, size_t number) {
    char digits[LONGEST_NUMBER];
    size_t size = 0, length = strlen(before);
    memcpy(to, before, length);
    to += length;
    do digits[size++] = (char)('0' + number % 10);
    while (number /= 10);
    while (size) *to++ = digits[--size];
    return to;
}

static const char *why_of(const Making *made, Text about, char room[LONGEST_PLACE]) {
    if (made->why.size && is_same(made->why, about)) return "({why})";
    for (size_t number = 0; number < made->people_count; number++)
        if (made->whys[number].size && is_same(made->whys[number], about)) {
            strcpy(put_numbered(room, "({why:", number), "})");
            return room;
        }
    return NULL;
}

static long person_of(const Making *made, Text about) {
    for (size_t number = 0; number < made->people_count; number++)
        if (is_same(made->people[number], about)) return (long)number;
    return -1;
}

/* What a reason is about: a placeholder, or the number of a recipient; see `verdicts._Places`. */
static const char *place_of(const Making *made, Text code, Text about, char room[LONGEST_PLACE],
                            long *number) {
    *number = -1;
    if (!about.size) return NULL;
    if (begins(code, "recipient") && (*number = person_of(made, about)) >= 0) return NULL;
    const char *found = begins(code, "origin") ? origin_of(made, about) : sender_of(made, about);
    if (!found) found = origin_of(made, about);
    if (!found) found = sender_of(made, about);
    if (!found) found = why_of(made, about, room);
    if (!found) *number = person_of(made, about);
    return found;
}

typedef struct {
    Text code;
    long first, last;
} Run; /* of reasons about recipients that follow one another */

static Outcome add_numbered(Reasons *reasons, Run *run, Text code, long number) {
    char about[LONGEST_PLACE];
    if (run->code.text && reasons->count && is_same(run->code, code) && number == run->last + 1) {
        run->last = number;
        char *end = put_numbered(about, "({", (size_t)run->first);
        strcpy(put_numbered(end, "..", (size_t)run->last), "})");
        reasons->size = reasons->last - (reasons->count > 1);
        reasons->count--;
        return add_reason(reasons, code, about, (Text){0});
    }
    *run = (Run){code, number, number};
    strcpy(put_numbered(about, "({", (size_t)number), "})");
    return add_reason(reasons, code, about, (Text){0});
}

static Outcome take_reason(const Making *made, Reasons *reasons, Run *run, Text reason) {
    char room[LONGEST_PLACE];
    long number;
    if (reason.size && !is_plain(reason)) return UNUSUAL;
    const char *bracket = memchr(reason.text, '(', reason.size);
    if (!bracket || reason.text[reason.size - 1] != ')') {
        *run = (Run){0};
        return names_nobody(reason) ? add_reason(reasons, reason, "", (Text){0}) : UNUSUAL;
    }
    Text code = {reason.text, (size_t)(bracket - reason.text)};
    Text about = {bracket + 1, reason.size - code.size - 2};
    const char *place = place_of(made, code, about, room, &number);
    if (!names_nobody(code)) return UNUSUAL;
    if (number >= 0) return add_numbered(reasons, run, code, number);
    *run = (Run){0};
    if (place) return add_reason(reasons, code, place, (Text){0});
    return names_nobody(about) ? add_reason(reasons, reason, "", (Text){0}) : UNUSUAL;
}

static PyObject *new_verdict(Maker *self, const Reasons *reasons) {
    PyObject *texts = PyTuple_New((Py_ssize_t)reasons->count);
    const char *at = reasons->text, *end = at + reasons->size;
    for (size_t number = 0; texts && number < reasons->count; number++) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        if (!next) next = end;
        PyObject *text = new_text((Text){at, (size_t)(next - at)});
        if (!text || PyTuple_SetItem(texts, (Py_ssize_t)number, text) < 0) Py_CLEAR(texts);
        at = next + 1;
    }
    PyObject *found = texts ? asked(self, ASK_VERDICT, texts, NULL, NULL) : NULL;
    Py_XDECREF(texts);
    return found;
}

static Outcome put_verdict(Maker *self, Making *made, const Reasons *reasons) {
    PyObject *key = new_octets((Text){reasons->text, reasons->size});
    if (!key) return ERROR;
    PyObject *found = PyDict_GetItemWithError(self->verdicts, key);
    /* No reason, and one that is an empty text, look the same. */
    if (found && reasons->size) {
        Py_DECREF(key);
        return say(made, K_VERDICT, found);
    }
    found = PyErr_Occurred() ? NULL : new_verdict(self, reasons);
    if (found && reasons->size) {
        if (PyDict_Size(self->verdicts) >= VERDICTS) PyDict_Clear(self->verdicts);
        if (PyDict_SetItem(self->verdicts, key, found) < 0) Py_CLEAR(found);
    }
    Py_DECREF(key);
    return say_new(made, K_VERDICT, found);
}

/* After all that reasons may be about. */
static Outcome add_reasons(Maker *self, Making *made, PyObject *given) {
    Reasons reasons;
    reasons.size = reasons.last = reasons.count = 0;
    Run run = {0};
    if (!PyList_Check(given)) return UNUSUAL;
    Py_ssize_t count = PyList_Size(given);
    for (Py_ssize_t number = 0; number < count; number++) {
        Text reason;
        PyObject *text = PyList_GetItem(given, number);
        if (text == Py_None) return UNUSUAL;
        TRY(text_of(text, &reason));
        TRY(take_reason(made, &reasons, &run, reason));
    }
    return put_verdict(self, made, &reasons);
}

/* ---- Signatures ------------------------------------------------------------------------------ */

static Outcome fill_signature(Maker *self, PyObject *columns, PyObject *form, PyObject *given) {
    TRY(tuple_of(form, 2));
    TRY(put(self, columns, K_FORM, PyTuple_GetItem(form, 0)));
    TRY(put(self, columns, K_AUID, PyTuple_GetItem(form, 1)));
    TRY(put(self, columns, K_SIGNED_AT, PyTuple_GetItem(given, 1)));
    return put(self, columns, K_EXPIRES_AT, PyTuple_GetItem(given, 2));
}

static Outcome add_signatures(Maker *self, Making *made, PyObject *signatures) {
    if (!PyList_Check(signatures)) return UNUSUAL;
    Py_ssize_t count = PyList_Size(signatures);
    for (Py_ssize_t number = 0; number < count; number++) {
        PyObject *given = PyList_GetItem(signatures, number);
        TRY(tuple_of(given, 3)); /* None is an unusual one */
        PyObject *form = asked_once(self, ASK_FORM, PyTuple_GetItem(given, 0), NULL, NULL);
        PyObject *columns = form ? PyDict_New() : NULL;
        Outcome outcome = columns ? fill_signature(self, columns, form, given) : ERROR;
        Py_XDECREF(form);
        if (outcome == DONE) outcome = append_new(made->signatures, columns);
        else Py_XDECREF(columns);
        TRY(outcome);
    }
    return say(made, K_IS_SIGNED, count ? Py_True : Py_False);
}

/* ---- One record ------------------------------------------------------------------------------ */

/* What stands in the message row as it came. */
static Outcome put_given(Making *made, PyObject *flat) {
    static const struct {
        int key, place;
    } given[] = {
        {K_RECORDED_AT, F_RECORDED_AT}, {K_QUEUE_ID, F_QUEUE_ID}, {K_CROSSING, F_CROSSING},
        {K_DISPOSITION, F_DISPOSITION}, {K_ARCHIVE_ADDRESSED, F_ARCHIVE_ADDRESSED},
        {K_SIZE, F_SIZE},               {K_NUMBERS, F_NUMBERS},   {K_BODY_HASH, F_BODY_HASH},
        {K_EVIDENCE_SALT, F_EVIDENCE_SALT},
    };
    for (size_t number = 0; number < sizeof given / sizeof *given; number++)
        TRY(say(made, given[number].key, PyTuple_GetItem(flat, given[number].place)));
    TRY(say(made, K_SALT, PyTuple_GetItem(flat, F_SALT)));
    TRY(say(made, K_BCC_MAPS, Py_None));
    return say(made, K_VERBATIM, Py_None);
}

static Outcome put_esmtp(Maker *self, Making *made, PyObject *esmtp) {
    if (!PyBytes_Check(esmtp)) return say(made, K_PATH_ESMTP, esmtp);
    return say_new(made, K_PATH_ESMTP, asked(self, ASK_ESMTP, esmtp, NULL, NULL));
}

static Outcome fill(Maker *self, Making *made, PyObject *apart, PyObject *indexed) {
    PyObject *flat = PyTuple_GetItem(apart, A_FLAT);
    Text record_id;
    octet id[ID_OCTETS]; /* nobody asks for it */
    TRY(tuple_of(flat, FLAT));
    TRY(text_of(PyTuple_GetItem(flat, F_RECORD_ID), &record_id));
    if (!read_id(record_id.text, record_id.size, id)) return UNUSUAL;
    TRY(put_given(made, flat));
    TRY(add_derived(self, made, apart, indexed));
    TRY(add_sender(self, made, PyTuple_GetItem(flat, F_PATH), PyTuple_GetItem(flat, F_COMMON)));
    TRY(put_esmtp(self, made, PyTuple_GetItem(flat, F_ESMTP)));
    TRY(add_client(self, made, PyTuple_GetItem(flat, F_CLIENT)));
    TRY(add_login(self, made, PyTuple_GetItem(flat, F_LOGIN)));
    TRY(add_envelope(self, made, PyTuple_GetItem(flat, F_RECIPIENTS),
                     PyTuple_GetItem(flat, F_COPIES)));
    TRY(add_reasons(self, made, PyTuple_GetItem(flat, F_REASONS)));
    TRY(add_signatures(self, made, PyTuple_GetItem(flat, F_SIGNATURES)));
    return index_people(self, made);
}

/* Values from key `first` up to `end` in their order. */
static PyObject *values_of(const Making *made, int first, int end) {
    PyObject *row = PyTuple_New(end - first);
    for (int key = first; row && key < end; key++) {
        PyObject *value = made->values[key - FIRST_SECTION];
        if (!value) value = Py_None;
        Py_INCREF(value);
        if (PyTuple_SetItem(row, key - first, value) < 0) Py_CLEAR(row);
    }
    return row;
}

/* The same by their names, in `row`, which is given back, or NULL. */
static PyObject *named_values(Maker *self, const Making *made, int first, int end, PyObject *row) {
    for (int key = first; row && key < end; key++) {
        PyObject *value = made->values[key - FIRST_SECTION];
        if (value && put(self, row, key, value) != DONE) Py_CLEAR(row);
    }
    return row;
}

static PyObject *named_section(Maker *self, const Making *made) {
    PyObject *row = named_values(self, made, FIRST_SECTION, FIRST_MESSAGE, PyDict_New());
    if (row && put(self, row, K_FIELDS, self->empty) != DONE) Py_CLEAR(row);
    return row;
}

static PyObject *answer(Maker *self, const Making *made, PyObject *record_id, bool is_named) {
    PyObject *message, *section, *answer = NULL;
    if (is_named) {
        message = named_values(self, made, FIRST_MESSAGE, KEYS, PyDict_Copy(self->blank));
        section = message ? named_section(self, made) : NULL;
    } else {
        message = values_of(made, FIRST_MESSAGE, KEYS);
        section = message ? values_of(made, FIRST_SECTION, FIRST_MESSAGE) : NULL;
    }
    if (section)
        answer = PyTuple_Pack(8, record_id, message, made->recipients, made->signatures, section,
                              made->participants, made->domains, made->terms);
    Py_XDECREF(message);
    Py_XDECREF(section);
    return answer;
}

static PyObject *made_of(Maker *self, PyObject *apart, PyObject *indexed, bool is_named) {
    Making made;
    memset(&made, 0, offsetof(Making, people));
    made.people_count = 0;
    PyObject **const own[] = {&made.participants, &made.domains, &made.roles, &made.recipients,
                              &made.signatures};
    bool is_there = true;
    for (size_t number = 0; number < 5; number++) {
        *own[number] = number < 3 ? PyDict_New() : PyList_New(0);
        is_there = is_there && *own[number];
    }
    Outcome outcome = is_there ? fill(self, &made, apart, indexed) : ERROR;
    PyObject *found = NULL;
    if (outcome == DONE)
        found = answer(self, &made, PyTuple_GetItem(PyTuple_GetItem(apart, A_FLAT), F_RECORD_ID),
                       is_named);
    for (size_t place = 0; place < VALUES; place++) Py_XDECREF(made.values[place]);
    for (size_t number = 0; number < 5; number++) Py_XDECREF(*own[number]);
    Py_XDECREF(made.terms);
    Py_XDECREF(made.authors);
    Py_XDECREF(made.to);
    Py_XDECREF(made.cc);
    for (size_t number = 0; number < made.held; number++) Py_DECREF(made.hold[number]);
    if (outcome == UNUSUAL) Py_RETURN_NONE;
    return found;
}

static PyObject *make_asked(PyObject *object, PyObject *const *args, Py_ssize_t count,
                            bool is_named) {
    if (count == 2 && PyTuple_Check(args[0]) && PyTuple_Size(args[0]) == APART)
        return made_of((Maker *)object, args[0], args[1], is_named);
    PyErr_SetString(PyExc_TypeError, "a line (Apart) and names (frozenset) expected");
    return NULL;
}

static PyObject *make_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    return make_asked(object, args, count, true);
}

static PyObject *make_values_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    return make_asked(object, args, count, false);
}

/* ---- The type -------------------------------------------------------------------------------- */

static int prepare(Maker *self, PyObject *questions) {
    if (!PyTuple_Check(questions) || PyTuple_Size(questions) != QUESTIONS) {
        PyErr_Format(PyExc_TypeError, "a tuple of %d functions expected", QUESTIONS);
        return -1;
    }
    for (size_t place = 0; place < QUESTIONS; place++) {
        self->questions[place] = PyTuple_GetItem(questions, (Py_ssize_t)place);
        Py_INCREF(self->questions[place]);
    }
    for (size_t place = 0; place < QUESTIONS; place++)
        if (!(self->answers[place] = PyDict_New())) return -1;
    for (size_t place = 0; place < KEYS; place++)
        if (!(self->keys[place] = PyUnicode_InternFromString(key_texts[place]))) return -1;
    for (long number = 0; number < 3; number++)
        if (!(self->numbers[number] = PyLong_FromLong(number))) return -1;
    if (!(self->blank = PyDict_New())) return -1;
    for (int key = FIRST_MESSAGE; key < KEYS; key++)
        if (put(self, self->blank, key, Py_None) == ERROR) return -1;
    self->empty = PyBytes_FromStringAndSize("", 0);
    self->verdicts = PyDict_New();
    return self->empty && self->verdicts ? 0 : -1;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *words[] = {"questions", NULL};
    PyObject *questions;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O", words, &questions)) return NULL;
    Maker *self = new_object(type);
    if (self && prepare(self, questions) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static void deallocate(PyObject *object) {
    Maker *self = (Maker *)object;
    for (size_t place = 0; place < QUESTIONS; place++) {
        Py_XDECREF(self->questions[place]);
        Py_XDECREF(self->answers[place]);
    }
    for (size_t place = 0; place < KEYS; place++) Py_XDECREF(self->keys[place]);
    for (size_t number = 0; number < 3; number++) Py_XDECREF(self->numbers[number]);
    Py_XDECREF(self->empty);
    Py_XDECREF(self->blank);
    Py_XDECREF(self->verdicts);
    free_object(object);
}

static PyMethodDef methods[] = {
    {"make", FASTCALL(make_method),
     "What the rows of a record that came flat are made of; None for one that is not usual."},
    {"make_values", FASTCALL(make_values_method),
     "The same, with tuples in the order of MESSAGE and SECTION for the two rows of columns."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Makes rows of usual records; see usual_rows.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter.archive._usual_rows.Maker",
    .basicsize = sizeof(Maker),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

/* The names of columns from key `first` up to `end`, as a constant of the module. */
static int add_names(PyObject *module, const char *constant, int first, int end) {
    PyObject *names = PyTuple_New(end - first);
    for (int key = first; names && key < end; key++) {
        PyObject *name = PyUnicode_InternFromString(key_texts[key]);
        if (!name || PyTuple_SetItem(names, key - first, name) < 0) Py_CLEAR(names);
    }
    int failed = names ? PyModule_AddObjectRef(module, constant, names) : -1;
    Py_XDECREF(names);
    return failed;
}

static int fill_module(PyObject *module) {
    if (add_names(module, "MESSAGE", FIRST_MESSAGE, KEYS) < 0
        || add_names(module, "SECTION", FIRST_SECTION, FIRST_MESSAGE) < 0)
        return -1;
    return add_type(module, &spec);
}

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill_module}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_usual_rows", .m_size = 0, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__usual_rows(void) { return PyModuleDef_Init(&definition); }
