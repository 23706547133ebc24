/* One line of the spool taken apart: the compiled twin of spool_line.py.
 *
 * For each line it answers what the twin answers, octet by octet, or None, which leaves the line to
 * the twin: it knows records as the milter writes them, and whatever is unlike them (an event, a
 * key that is missing or there twice, a number with a fraction, an escape that canonical JSON would
 * not make) it does not judge.  tests/archive/test_spool_line.py compares the two.
 *
 * Here because the canonical JSON of each part, which is hashed, lies in the line already: what
 * costs Python a tree of objects, written out again, is here a copy of octets between two places.
 *
 * Bounds: time and memory are linear in the line; lists and objects in one another, and keys of one
 * object, are limited.  No octet is read beyond the line.
 */

#define Py_LIMITED_API 0x030B0000 /* one build for CPython 3.11 and all later ones */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define DEEPEST 16        /* of lists and objects in one another */
#define MOST_KEYS 64      /* of one object */
#define MOST_RECIPIENTS 1000
#define LONGEST ((size_t)1 << 30)
#define KEPT ((size_t)1 << 20) /* octets of working memory kept from line to line */
#define DIGEST 32
#define SALT 16
#define ROW 10            /* salts that come from one hash */
#define SHORT 100         /* characters; of no longer name evidence asks what it is */
#define LONGEST_NAME 255  /* of fields from which anything is derived */
#define TAIL 20           /* ,"crc32":"01234567"} and nothing else */
#define KEYS 256          /* remembered texts of keys; a power of two */
#define LONGEST_KEY 24
#define LONGEST_WORD 64   /* characters; of longer ones only the beginning counts */
#define LONGEST_SUBJECT 400 /* characters; there cannot be too many words in it */

typedef unsigned char octet;
/* What a step may say.  Of an error a Python exception is set. */
typedef enum { ERROR = -1, UNUSUAL = 0, DONE = 1 } Outcome;
#define TRY(step)                          \
    do {                                   \
        Outcome outcome_ = (step);         \
        if (outcome_ != DONE) return outcome_; \
    } while (0)

typedef enum { OBJECT, LIST, TEXT, NUMBER, YES, NO, NOTHING } Kind;

typedef struct {
    uint32_t start, end; /* in the line; of a text without its quotation marks */
    uint32_t next;       /* the node after this one and all that is in it */
    uint32_t count;      /* of members (key and value each) or elements */
    octet kind;
    bool escaped;        /* a text with escapes */
    bool beyond;         /* it, or a text in it, has an escape of DEL or of what is beyond ASCII */
    bool has_object;     /* it is one, or has one in it */
} Node;

typedef struct {
    octet *octets;
    size_t size, room;
} Buffer;

enum { ADDRESSES, FIELDS, SUBJECT, GROUPS }; /* of header fields, in the order of their names */

typedef enum { ANY, IDENTIFIER, TITLE } Meaning; /* TITLE: the subject */

typedef struct {
    PyObject *wanted; /* the name, if anything is derived from the field */
    octet group;
    octet meaning;
    octet size;
    octet text[LONGEST_NAME];
} Name;

typedef struct {
    PyObject *text;
    octet size;
    octet octets[LONGEST_KEY];
} Key;

typedef struct {
    PyObject_HEAD
    Name *names;
    size_t name_count;
    Key keys[KEYS];
    EVP_MD *sha256, *shake128;
    EVP_MD_CTX *hashing, *shaking; /* one each: changing the hash costs as much as hashing */
    Node *nodes;
    uint32_t count, room;
    Buffer part, digests, text;
    const octet *line; /* while one is read */
    size_t at, end;
} Reader;

/* ---- Working memory -------------------------------------------------------------------------- */

static Outcome make_room(Buffer *buffer, size_t more) {
    if (buffer->room - buffer->size >= more) return DONE;
    size_t room = 2 * buffer->room + more + 256;
    octet *octets = realloc(buffer->octets, room);
    if (!octets) {
        PyErr_NoMemory();
        return ERROR;
    }
    buffer->octets = octets;
    buffer->room = room;
    return DONE;
}

static Outcome append(Buffer *buffer, const void *octets, size_t size) {
    TRY(make_room(buffer, size));
    memcpy(buffer->octets + buffer->size, octets, size);
    buffer->size += size;
    return DONE;
}

static Outcome append_number(Buffer *buffer, unsigned long number) {
    char text[24];
    int size = snprintf(text, sizeof text, "%lu", number);
    return append(buffer, text, (size_t)size);
}

#define APPEND(buffer, literal) append(buffer, literal, sizeof(literal) - 1)

static void release(Buffer *buffer) {
    free(buffer->octets);
    *buffer = (Buffer){0};
}

/* ---- Reading JSON ---------------------------------------------------------------------------- */

static Outcome add_node(Reader *self, Kind kind, uint32_t *place) {
    if (self->count == self->room) {
        uint32_t room = 2 * self->room + 256;
        Node *nodes = realloc(self->nodes, room * sizeof *nodes);
        if (!nodes) {
            PyErr_NoMemory();
            return ERROR;
        }
        self->nodes = nodes;
        self->room = room;
    }
    *place = self->count++;
    self->nodes[*place] = (Node){.start = (uint32_t)self->at, .kind = (octet)kind};
    return DONE;
}

static int hexadecimal(octet sign) {
    if (sign >= '0' && sign <= '9') return sign - '0';
    return sign >= 'a' && sign <= 'f' ? sign - 'a' + 10 : -1; /* canonical JSON has no capitals */
}

/* The code unit of \uXXXX, whose backslash is at `at`; -1 where there is none. */
static int code_unit(const octet *line, size_t at, size_t end) {
    if (end - at < 6 || line[at + 1] != 'u') return -1;
    int unit = 0;
    for (size_t place = at + 2; place < at + 6; place++) {
        int digit = hexadecimal(line[place]);
        if (digit < 0) return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* An escape as canonical JSON writes it: in no other way than this one. */
static Outcome read_escape(Reader *self, Node *node) {
    node->escaped = true;
    if (self->end - self->at < 2) return UNUSUAL;
    if (strchr("\"\\bfnrt", self->line[self->at + 1]) && self->line[self->at + 1]) {
        self->at += 2;
        return DONE;
    }
    int unit = code_unit(self->line, self->at, self->end);
    if (unit < 0 || (unit >= 0x20 && unit < 0x7F)) return UNUSUAL;
    if (unit < 0x20 && strchr("\b\f\n\r\t", unit) && unit) return UNUSUAL;
    node->beyond = node->beyond || unit >= 0x7F;
    self->at += 6;
    return DONE;
}

static bool is_plain(octet sign) {
    return sign >= 0x20 && sign < 0x7F && sign != '"' && sign != '\\';
}

/* The first octet from `at` on that is no plain sign of a text. */
static size_t end_of_plain(const octet *line, size_t at, size_t end) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    const __m128i del = _mm_set1_epi8(0x7F), space = _mm_set1_epi8(0x20);
    for (; end - at >= 16; at += 16) {
        __m128i signs = _mm_loadu_si128((const __m128i *)(line + at));
        /* What is beyond ASCII is negative, and so below the space, too. */
        __m128i odd = _mm_or_si128(_mm_cmplt_epi8(signs, space), _mm_cmpeq_epi8(signs, del));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(signs, quote));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(signs, backslash));
        int found = _mm_movemask_epi8(odd);
        if (found) return at + (size_t)__builtin_ctz((unsigned)found);
    }
#endif
    while (at < end && is_plain(line[at])) at++;
    return at;
}

static Outcome read_text(Reader *self, uint32_t *place) {
    self->at++; /* the quotation mark */
    TRY(add_node(self, TEXT, place));
    Node *node = &self->nodes[*place];
    const octet *line = self->line;
    for (;;) {
        self->at = end_of_plain(line, self->at, self->end);
        if (self->at >= self->end) return UNUSUAL;
        if (line[self->at] == '"') break;
        if (line[self->at] != '\\') return UNUSUAL;
        TRY(read_escape(self, node));
    }
    node->end = (uint32_t)self->at++;
    node->next = self->count;
    return DONE;
}

static Outcome read_number(Reader *self) {
    uint32_t place;
    TRY(add_node(self, NUMBER, &place));
    size_t at = self->at;
    bool is_negative = self->line[at] == '-';
    size_t first = at += is_negative;
    while (at < self->end && self->line[at] >= '0' && self->line[at] <= '9') at++;
    if (at == first || at - first > 18) return UNUSUAL;
    if (self->line[first] == '0' && (at - first > 1 || is_negative)) return UNUSUAL;
    self->nodes[place].end = (uint32_t)(self->at = at);
    self->nodes[place].next = self->count;
    return DONE;
}

static Outcome read_word(Reader *self, Kind kind, const char *word) {
    size_t size = strlen(word);
    uint32_t place;
    if (self->end - self->at < size || memcmp(self->line + self->at, word, size)) return UNUSUAL;
    TRY(add_node(self, kind, &place));
    self->nodes[place].end = (uint32_t)(self->at += size);
    self->nodes[place].next = self->count;
    return DONE;
}

static Outcome read_many(Reader *self, Kind kind, int depth);

static Outcome read_value(Reader *self, int depth) {
    uint32_t place;
    if (self->at >= self->end) return UNUSUAL;
    switch (self->line[self->at]) {
    case '"': return read_text(self, &place);
    case '{': return read_many(self, OBJECT, depth + 1);
    case '[': return read_many(self, LIST, depth + 1);
    case 't': return read_word(self, YES, "true");
    case 'f': return read_word(self, NO, "false");
    case 'n': return read_word(self, NOTHING, "null");
    default: return read_number(self);
    }
}

/* The line as a whole ends where its checksum begins, as if a bracket stood there. */
static bool is_closed(const Reader *self, char bracket, int depth) {
    if (depth == 1) return self->at == self->end;
    return self->at < self->end && self->line[self->at] == bracket;
}

static Outcome read_many(Reader *self, Kind kind, int depth) {
    char bracket = kind == OBJECT ? '}' : ']';
    uint32_t place, key;
    if (depth > DEEPEST) return UNUSUAL;
    TRY(add_node(self, kind, &place));
    self->at++;
    uint32_t count = 0;
    bool beyond = false, has_object = kind == OBJECT;
    while (!is_closed(self, bracket, depth)) {
        if (count++) {
            if (self->at >= self->end || self->line[self->at++] != ',') return UNUSUAL;
        }
        if (kind == OBJECT) {
            if (self->at >= self->end || self->line[self->at] != '"') return UNUSUAL;
            TRY(read_text(self, &key));
            if (self->nodes[key].escaped) return UNUSUAL;
            if (self->at >= self->end || self->line[self->at++] != ':') return UNUSUAL;
        }
        uint32_t value = self->count;
        TRY(read_value(self, depth));
        beyond = beyond || self->nodes[value].beyond;
        has_object = has_object || self->nodes[value].has_object;
    }
    Node *node = &self->nodes[place];
    self->at += depth > 1;
    node->end = (uint32_t)self->at;
    node->next = self->count;
    node->count = count;
    node->beyond = beyond;
    node->has_object = has_object;
    return DONE;
}

static bool is_text(const Reader *self, uint32_t place, const char *text) {
    const Node *node = &self->nodes[place];
    size_t size = strlen(text);
    return node->kind == TEXT && node->end - node->start == size
           && !memcmp(self->line + node->start, text, size);
}

/* ---- Canonical JSON -------------------------------------------------------------------------- */

static int compare_keys(const Reader *self, uint32_t one, uint32_t other) {
    const Node *a = &self->nodes[one], *b = &self->nodes[other];
    size_t first = a->end - a->start, second = b->end - b->start;
    int order = memcmp(self->line + a->start, self->line + b->start,
                       first < second ? first : second);
    return order ? order : (first > second) - (first < second);
}

/* Sort keys; UNUSUAL where one is there twice. */
static Outcome sort_keys(const Reader *self, uint32_t *keys, size_t count) {
    for (size_t done = 1; done < count; done++) {
        uint32_t key = keys[done];
        size_t place = done;
        for (; place; place--) {
            int order = compare_keys(self, keys[place - 1], key);
            if (!order) return UNUSUAL;
            if (order < 0) break;
            keys[place] = keys[place - 1];
        }
        keys[place] = key;
    }
    return DONE;
}

static Outcome append_canonical(Reader *self, uint32_t place);

static Outcome append_members(Reader *self, uint32_t *keys, size_t count) {
    TRY(sort_keys(self, keys, count));
    TRY(APPEND(&self->part, "{"));
    for (size_t number = 0; number < count; number++) {
        const Node *key = &self->nodes[keys[number]];
        if (number) TRY(APPEND(&self->part, ","));
        TRY(append(&self->part, self->line + key->start - 1, key->end - key->start + 2));
        TRY(APPEND(&self->part, ":"));
        TRY(append_canonical(self, key->next));
    }
    return APPEND(&self->part, "}");
}

static Outcome append_canonical(Reader *self, uint32_t place) {
    const Node *node = &self->nodes[place];
    if (!node->has_object) { /* what is written compactly is canonical but for the order of keys */
        uint32_t mark = node->kind == TEXT;
        return append(&self->part, self->line + node->start - mark,
                      node->end - node->start + 2 * mark);
    }
    if (node->kind == LIST) {
        TRY(APPEND(&self->part, "["));
        uint32_t next = node->next; /* nothing is read any more, so nodes stay where they are */
        for (uint32_t one = place + 1; one < next; one = self->nodes[one].next) {
            if (one > place + 1) TRY(APPEND(&self->part, ","));
            TRY(append_canonical(self, one));
        }
        return APPEND(&self->part, "]");
    }
    uint32_t keys[MOST_KEYS];
    size_t count = 0;
    for (uint32_t key = place + 1; key < node->next; key = self->nodes[key + 1].next) {
        if (count == MOST_KEYS) return UNUSUAL;
        keys[count++] = key;
    }
    return append_members(self, keys, count);
}

/* ---- Hashing --------------------------------------------------------------------------------- */

static Outcome failed_hash(void) {
    PyErr_SetString(PyExc_RuntimeError, "OpenSSL cannot hash");
    return ERROR;
}

static Outcome hash(Reader *self, const void *octets, size_t size, octet digest[DIGEST]) {
    EVP_MD_CTX *context = self->hashing;
    if (EVP_DigestInit_ex(context, self->sha256, NULL) && EVP_DigestUpdate(context, octets, size)
        && EVP_DigestFinal_ex(context, digest, NULL))
        return DONE;
    return failed_hash();
}

static Outcome shake(Reader *self, const void *octets, size_t size, octet *made, size_t wanted) {
    EVP_MD_CTX *context = self->shaking;
    if (EVP_DigestInit_ex(context, self->shake128, NULL) && EVP_DigestUpdate(context, octets, size)
        && EVP_DigestFinalXOF(context, made, wanted))
        return DONE;
    return failed_hash();
}

static Outcome begin_part(Reader *self, const octet *salt, const char *name) {
    self->part.size = 0;
    TRY(append(&self->part, salt, SALT));
    return append(&self->part, name, strlen(name));
}

/* The commitment of the part that was written, to the end of `digests`. */
static Outcome end_part(Reader *self) {
    TRY(make_room(&self->digests, DIGEST));
    TRY(hash(self, self->part.octets, self->part.size, self->digests.octets + self->digests.size));
    self->digests.size += DIGEST;
    return DONE;
}

/* ---- A record -------------------------------------------------------------------------------- */

/* Parts of their own, in the order of their salts; `facts` stands for all keys that have none. */
enum { FACTS, CLIENT, LOGIN, ORIGIN, REVERSE_PATH, COPIES, SIGNATURES, REASONS, BCC_MAPS, PARTS };
static const char *const part_names[PARTS] = {
    "facts",      "client",  "login",   "origin", "reverse_path", "archive_recipients",
    "signatures", "reasons", "bcc_maps",
};
/* Their names in order; the recipients come between. */
static const octet before_recipients[] = {COPIES, BCC_MAPS, CLIENT, FACTS, LOGIN, ORIGIN, REASONS};
static const octet after_recipients[] = {REVERSE_PATH, SIGNATURES};

typedef struct {
    uint32_t parts[PARTS]; /* nodes of values; 0 is the line itself and so means that it lacks */
    uint32_t recipients, fields, salt;
    uint32_t facts[MOST_KEYS]; /* nodes of keys */
    size_t fact_count;
} Record;

static Outcome take(uint32_t *slot, uint32_t value) {
    if (*slot) return UNUSUAL; /* the key is there twice */
    *slot = value;
    return DONE;
}

static Outcome find_parts(Reader *self, Record *record) {
    *record = (Record){0};
    uint32_t end = self->nodes[0].next;
    for (uint32_t key = 1; key < end; key = self->nodes[key + 1].next) {
        uint32_t *slot = NULL;
        for (size_t part = CLIENT; part < PARTS && !slot; part++)
            if (is_text(self, key, part_names[part])) slot = &record->parts[part];
        if (is_text(self, key, "recipients")) slot = &record->recipients;
        if (is_text(self, key, "header_fields")) slot = &record->fields;
        if (is_text(self, key, "salt")) slot = &record->salt;
        if (slot) {
            TRY(take(slot, key + 1));
        } else {
            if (record->fact_count == MOST_KEYS || is_text(self, key, "event")) return UNUSUAL;
            record->facts[record->fact_count++] = key;
        }
    }
    for (size_t part = CLIENT; part < PARTS; part++)
        if (!record->parts[part]) return UNUSUAL;
    if (!record->recipients || !record->fields || !record->salt) return UNUSUAL;
    const Node *recipients = &self->nodes[record->recipients];
    bool is_usual = recipients->kind == LIST && recipients->count < MOST_RECIPIENTS
                    && self->nodes[record->fields].kind == LIST;
    return is_usual ? DONE : UNUSUAL;
}

static Outcome read_salt(const Reader *self, uint32_t place, octet salt[SALT]) {
    const Node *node = &self->nodes[place];
    if (node->kind != TEXT || node->end - node->start != 2 * SALT) return UNUSUAL;
    for (size_t number = 0; number < SALT; number++) {
        int high = hexadecimal(self->line[node->start + 2 * number]);
        int low = hexadecimal(self->line[node->start + 2 * number + 1]);
        if (high < 0 || low < 0) return UNUSUAL;
        salt[number] = (octet)(high << 4 | low);
    }
    return DONE;
}

/* ---- Evidence of all but the header section -------------------------------------------------- */

static Outcome append_name(Buffer *to, const char *name) {
    TRY(to->size > 1 ? APPEND(to, ",\"") : APPEND(to, "\""));
    TRY(append(to, name, strlen(name)));
    return APPEND(to, "\"");
}

/* Put names in front and digests behind of the recipients whose numbers begin so, in the order of
   their names: 0, 1, 10, 11 .. 2, 20 .. */
static Outcome append_recipients(Reader *self, Buffer *names, Buffer *digests, size_t first,
                                 size_t count) {
    if (first >= count) return DONE;
    char name[32];
    snprintf(name, sizeof name, "recipients/%zu", first);
    TRY(append_name(names, name));
    TRY(append(digests, self->digests.octets + (PARTS + first) * DIGEST, DIGEST));
    for (size_t digit = 0; first && digit < 10; digit++)
        TRY(append_recipients(self, names, digests, 10 * first + digit, count));
    return DONE;
}

static Outcome append_parts(Reader *self, Buffer *names, Buffer *digests, const octet *parts,
                            size_t count) {
    for (size_t number = 0; number < count; number++) {
        TRY(append_name(names, part_names[parts[number]]));
        TRY(append(digests, self->digests.octets + parts[number] * DIGEST, DIGEST));
    }
    return DONE;
}

/* The hash over all names and commitments in the order of the names. */
static Outcome hash_together(Reader *self, size_t recipients, octet digest[DIGEST]) {
    Buffer *names = &self->part, *digests = &self->text;
    names->size = digests->size = 0;
    TRY(APPEND(names, "["));
    TRY(append_parts(self, names, digests, before_recipients, sizeof before_recipients));
    for (size_t first = 0; first < 10; first++)
        TRY(append_recipients(self, names, digests, first, recipients));
    TRY(append_parts(self, names, digests, after_recipients, sizeof after_recipients));
    TRY(append(names, "]", 2)); /* and the zero octet */
    TRY(append(names, digests->octets, digests->size));
    return hash(self, names->octets, names->size, digest);
}

/* The next salt of the rest: ten come from one hash. */
static Outcome next_salt(Reader *self, const octet base[SALT], size_t place,
                         octet row[ROW * SALT], const octet **salt) {
    if (place % ROW == 0) {
        char seed[SALT + 24];
        memcpy(seed, base, SALT);
        int size = snprintf(seed + SALT, 24, "%zu", place / ROW);
        TRY(shake(self, seed, SALT + (size_t)size, row, ROW * SALT));
    }
    *salt = row + place % ROW * SALT;
    return DONE;
}

static Outcome commit_rest(Reader *self, Record *record, const octet base[SALT],
                           octet digest[DIGEST]) {
    octet row[ROW * SALT];
    const octet *salt;
    char name[32];
    self->digests.size = 0;
    for (size_t part = 0; part < PARTS; part++) {
        TRY(next_salt(self, base, part, row, &salt));
        TRY(begin_part(self, salt, part_names[part]));
        TRY(append(&self->part, "", 1));
        if (part == FACTS)
            TRY(append_members(self, record->facts, record->fact_count));
        else
            TRY(append_canonical(self, record->parts[part]));
        TRY(end_part(self));
    }
    const Node *recipients = &self->nodes[record->recipients];
    size_t number = 0;
    for (uint32_t one = record->recipients + 1; one < recipients->next;
         one = self->nodes[one].next) {
        TRY(next_salt(self, base, PARTS + number, row, &salt));
        snprintf(name, sizeof name, "recipients/%zu", number++);
        TRY(begin_part(self, salt, name));
        TRY(append(&self->part, "", 1));
        TRY(append_canonical(self, one));
        TRY(end_part(self));
    }
    return hash_together(self, number, digest);
}

/* ---- The header section ---------------------------------------------------------------------- */

/* What is known of a field's name; NULL: nothing.  Names without escapes hold no white space but
   spaces. */
static const Name *known_name(const Reader *self, const Node *node) {
    const octet *text = self->line + node->start, *end = self->line + node->end;
    while (text < end && *text == ' ') text++;
    while (text < end && end[-1] == ' ') end--;
    size_t size = (size_t)(end - text);
    for (size_t number = 0; number < self->name_count; number++) {
        const Name *name = &self->names[number];
        if (name->size != size) continue;
        size_t place = 0;
        while (place < size) {
            octet sign = text[place];
            if (sign >= 'A' && sign <= 'Z') sign |= 0x20;
            if (sign != name->text[place]) break;
            place++;
        }
        if (place == size) return name;
    }
    return NULL;
}

/* The fields of one group with their places, or with nothing in the places of all others. */
static Outcome append_fields(Reader *self, uint32_t fields, const octet *groups, octet group) {
    const Node *list = &self->nodes[fields];
    TRY(APPEND(&self->part, "["));
    unsigned long place = 0;
    bool is_first = true;
    for (uint32_t one = fields + 1; one < list->next; one = self->nodes[one].next, place++) {
        const Node *field = &self->nodes[one];
        bool is_in = groups[place] == group;
        if (!is_in && group != FIELDS) continue;
        if (!is_first) TRY(APPEND(&self->part, ","));
        is_first = false;
        if (!is_in) {
            TRY(APPEND(&self->part, "null"));
            continue;
        }
        if (group != FIELDS) {
            TRY(APPEND(&self->part, "["));
            TRY(append_number(&self->part, place));
            TRY(APPEND(&self->part, ","));
        }
        TRY(append(&self->part, self->line + field->start, field->end - field->start));
        if (group != FIELDS) TRY(APPEND(&self->part, "]"));
    }
    return APPEND(&self->part, "]");
}

static Outcome commit_header(Reader *self, uint32_t fields, const octet *groups,
                             const octet bases[2 * SALT], octet digest[DIGEST]) {
    static const char *const labels[GROUPS] = {"header/addresses", "header/fields",
                                               "header/subject"};
    static const char names[] = "[\"header/addresses\",\"header/fields\",\"header/subject\"]";
    octet seed[SALT + 1], salts[GROUPS * SALT];
    memcpy(seed, bases, SALT);
    seed[SALT] = '0';
    TRY(shake(self, seed, sizeof seed, salts, 2 * SALT));
    memcpy(salts + 2 * SALT, bases + SALT, SALT);
    self->digests.size = 0;
    for (octet group = 0; group < GROUPS; group++) {
        TRY(begin_part(self, salts + group * SALT, labels[group]));
        TRY(append(&self->part, "", 1));
        TRY(append_fields(self, fields, groups, group));
        TRY(end_part(self));
    }
    self->part.size = 0;
    TRY(append(&self->part, names, sizeof names)); /* and the zero octet */
    TRY(append(&self->part, self->digests.octets, self->digests.size));
    return hash(self, self->part.octets, self->part.size, digest);
}

/* ---- Texts without escapes ------------------------------------------------------------------- */

static bool is_high(int unit) { return unit >= 0xD800 && unit <= 0xDBFF; }
static bool is_low(int unit) { return unit >= 0xDC00 && unit <= 0xDFFF; }

static size_t put_utf8(octet *to, unsigned long sign) {
    if (sign < 0x80) {
        to[0] = (octet)sign;
        return 1;
    }
    if (sign < 0x800) {
        to[0] = (octet)(0xC0 | sign >> 6);
        to[1] = (octet)(0x80 | (sign & 0x3F));
        return 2;
    }
    if (sign < 0x10000) {
        to[0] = (octet)(0xE0 | sign >> 12);
        to[1] = (octet)(0x80 | (sign >> 6 & 0x3F));
        to[2] = (octet)(0x80 | (sign & 0x3F));
        return 3;
    }
    to[0] = (octet)(0xF0 | sign >> 18);
    to[1] = (octet)(0x80 | (sign >> 12 & 0x3F));
    to[2] = (octet)(0x80 | (sign >> 6 & 0x3F));
    to[3] = (octet)(0x80 | (sign & 0x3F));
    return 4;
}

typedef enum {
    AS_JSON,   /* escapes stay where JSON in UTF-8 needs them */
    AS_UTF8,   /* lone surrogates as if they were characters */
    AS_OCTETS, /* surrogates that stand for octets become those; UNUSUAL where there are others */
} Form;

/* Write a piece of the line in another form to the end of `text`; it is never longer there. */
static Outcome append_unescaped(Reader *self, size_t at, size_t end, Form form) {
    TRY(make_room(&self->text, end - at));
    const octet *line = self->line;
    octet *to = self->text.octets + self->text.size;
    while (at < end) {
        if (line[at] != '\\') {
            *to++ = line[at++];
            continue;
        }
        octet sign = line[at + 1];
        if (sign != 'u') {
            static const char signs[] = "bfnrt\"\\", meant[] = "\b\f\n\r\t\"\\";
            if (form == AS_JSON) *to++ = '\\', *to++ = sign;
            else *to++ = (octet)meant[strchr(signs, sign) - signs];
            at += 2;
            continue;
        }
        int unit = code_unit(line, at, end);
        unsigned long whole = (unsigned long)unit;
        size_t taken = 6;
        if (is_high(unit) && at + 6 < end && line[at + 6] == '\\') {
            int low = code_unit(line, at + 6, end);
            if (is_low(low)) {
                whole = 0x10000 + ((unsigned long)(unit - 0xD800) << 10)
                        + (unsigned long)(low - 0xDC00);
                taken = 12;
            }
        }
        if (form == AS_JSON && whole < 0x20) {
            memcpy(to, line + at, 6);
            to += 6;
        } else if (form == AS_OCTETS && whole >= 0xD800 && whole <= 0xDFFF) {
            if (whole < 0xDC80 || whole > 0xDCFF) return UNUSUAL;
            *to++ = (octet)(whole & 0xFF);
        } else {
            to += put_utf8(to, whole);
        }
        at += taken;
    }
    self->text.size = (size_t)(to - self->text.octets);
    return DONE;
}

static PyObject *text_bytes(Reader *self) {
    return PyBytes_FromStringAndSize((const char *)self->text.octets, (Py_ssize_t)self->text.size);
}

static PyObject *slice_bytes(const Reader *self, const Node *node) {
    return PyBytes_FromStringAndSize((const char *)self->line + node->start,
                                     (Py_ssize_t)(node->end - node->start));
}

/* The header section as it is compressed: JSON in UTF-8. */
static PyObject *header_text(Reader *self, uint32_t fields) {
    const Node *node = &self->nodes[fields];
    if (!node->beyond) return slice_bytes(self, node);
    self->text.size = 0;
    if (append_unescaped(self, node->start, node->end, AS_JSON) != DONE) return NULL;
    return text_bytes(self);
}

/* The octets behind the lossless text of a value. */
static PyObject *value_octets(Reader *self, uint32_t place) {
    const Node *node = &self->nodes[place];
    if (!node->escaped) return slice_bytes(self, node);
    self->text.size = 0;
    Outcome outcome = append_unescaped(self, node->start, node->end, AS_OCTETS);
    if (outcome == UNUSUAL) { /* text that never was octets */
        self->text.size = 0;
        outcome = append_unescaped(self, node->start, node->end, AS_UTF8);
    }
    return outcome == DONE ? text_bytes(self) : NULL;
}

/* ---- Python objects -------------------------------------------------------------------------- */

static PyObject *make_text(Reader *self, const Node *node) {
    const char *octets = (const char *)self->line + node->start;
    if (!node->escaped) return PyUnicode_FromStringAndSize(octets, (Py_ssize_t)(node->end - node->start));
    self->text.size = 0;
    if (append_unescaped(self, node->start, node->end, AS_UTF8) != DONE) return NULL;
    return PyUnicode_DecodeUTF8((const char *)self->text.octets, (Py_ssize_t)self->text.size,
                                "surrogatepass");
}

/* Keys are the same in all records: the texts of the last ones are remembered. */
static PyObject *make_key(Reader *self, const Node *node) {
    size_t size = node->end - node->start;
    const octet *text = self->line + node->start;
    if (!size || size > LONGEST_KEY) return make_text(self, node);
    size_t place = (text[0] * 31u + text[size / 2] * 17u + text[size - 1] * 7u + size) % KEYS;
    Key *key = &self->keys[place];
    if (key->text && key->size == size && !memcmp(key->octets, text, size)) {
        Py_INCREF(key->text);
        return key->text;
    }
    PyObject *made = make_text(self, node);
    if (!made) return NULL;
    PyUnicode_InternInPlace(&made);
    Py_XDECREF(key->text);
    Py_INCREF(made);
    key->text = made;
    key->size = (octet)size;
    memcpy(key->octets, text, size);
    return made;
}

static PyObject *make_object(Reader *self, uint32_t place, uint32_t without);

static PyObject *make_list(Reader *self, uint32_t place) {
    PyObject *made = PyList_New((Py_ssize_t)self->nodes[place].count);
    Py_ssize_t number = 0;
    uint32_t next = self->nodes[place].next;
    for (uint32_t one = place + 1; made && one < next; one = self->nodes[one].next) {
        PyObject *element = make_object(self, one, 0);
        if (!element || PyList_SetItem(made, number++, element) < 0) Py_CLEAR(made);
    }
    return made;
}

static PyObject *make_dictionary(Reader *self, uint32_t place, uint32_t without) {
    PyObject *made = PyDict_New();
    uint32_t next = self->nodes[place].next;
    for (uint32_t one = place + 1; made && one < next; one = self->nodes[one + 1].next) {
        if (one + 1 == without) continue;
        PyObject *key = make_key(self, &self->nodes[one]);
        PyObject *value = key ? make_object(self, one + 1, 0) : NULL;
        if (!value || PyDict_SetItem(made, key, value) < 0) Py_CLEAR(made);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return made;
}

static PyObject *make_number(const Reader *self, const Node *node) {
    long long number = 0;
    for (uint32_t at = node->start; at < node->end; at++)
        if (self->line[at] != '-') number = 10 * number + (self->line[at] - '0');
    return PyLong_FromLongLong(self->line[node->start] == '-' ? -number : number);
}

/* The value at `place` as the json module makes it, but for the member with the value `without`. */
static PyObject *make_object(Reader *self, uint32_t place, uint32_t without) {
    const Node *node = &self->nodes[place];
    switch (node->kind) {
    case OBJECT: return make_dictionary(self, place, without);
    case LIST: return make_list(self, place);
    case TEXT: return make_text(self, node);
    case NUMBER: return make_number(self, node);
    case YES: return PyBool_FromLong(1);
    case NO: return PyBool_FromLong(0);
    default: Py_RETURN_NONE;
    }
}

/* ---- What is derived from plain fields ------------------------------------------------------- */

/* Most subjects and identifiers are plain.  All others are left to Python. */
typedef struct {
    PyObject *subject, *terms, *identifier, *identifier_term; /* NULL: left to Python */
    bool has_subject, has_identifier;                         /* one came by */
} Plain;

static PyObject *make_term(Reader *self, const octet *text, size_t size) {
    octet digest[DIGEST];
    if (hash(self, text, size, digest) != DONE) return NULL;
    long long number = digest[0] < 128 ? 0 : -1; /* signed, the highest octet first */
    for (size_t place = 0; place < 6; place++) number = number * 256 + digest[place];
    return PyLong_FromLongLong(number);
}

static bool is_digit(octet sign) { return sign >= '0' && sign <= '9'; }
static bool is_capital(octet sign) { return sign >= 'A' && sign <= 'Z'; }
static bool is_small(octet sign) { return sign >= 'a' && sign <= 'z'; }
static bool is_word(octet sign) { return is_capital(sign) || is_small(sign) || is_digit(sign); }

/* Terms of the words of a text without escapes in which none is too long. */
static PyObject *word_terms(Reader *self, const octet *text, size_t size) {
    octet word[LONGEST_WORD];
    size_t length = 0;
    PyObject *made = PyList_New(0);
    for (size_t place = 0; made && place <= size; place++) {
        octet sign = place < size ? text[place] : ' ';
        if (is_word(sign)) {
            word[length++] = is_capital(sign) ? sign | 0x20 : sign;
            continue;
        }
        if (!length) continue;
        PyObject *term = make_term(self, word, length);
        if (!term || PyList_Append(made, term) < 0) Py_CLEAR(made);
        Py_XDECREF(term);
        length = 0;
    }
    return made;
}

static Outcome derive_subject(Reader *self, const octet *text, size_t size, Plain *plain) {
    while (size && *text == ' ') text++, size--;
    while (size && text[size - 1] == ' ') size--;
    if (size > LONGEST_SUBJECT) return DONE;
    for (size_t place = 1, length = 1; place < size; place++) {
        if (text[place] == '?' && text[place - 1] == '=') return DONE; /* an encoded word */
        length = is_word(text[place]) ? length + 1 : 0;
        if (length > LONGEST_WORD) return DONE;
    }
    plain->subject = PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)size);
    plain->terms = plain->subject ? word_terms(self, text, size) : NULL;
    return plain->terms ? DONE : ERROR;
}

static Outcome derive_identifier(Reader *self, const octet *text, size_t size, Plain *plain) {
    while (size && *text == ' ') text++, size--;
    while (size && text[size - 1] == ' ') size--;
    if (size < 3 || text[0] != '<' || text[size - 1] != '>') return DONE;
    for (size_t place = 1; place < size - 1; place++)
        if (text[place] == ' ' || text[place] == '<' || text[place] == '>') return DONE;
    plain->identifier = PyUnicode_FromStringAndSize((const char *)text + 1, (Py_ssize_t)size - 2);
    plain->identifier_term = plain->identifier ? make_term(self, text + 1, size - 2) : NULL;
    return plain->identifier_term ? DONE : ERROR;
}

/* Of several fields of a name the first counts; of several subjects the words of all. */
static Outcome derive(Reader *self, const Name *name, const Node *value, Plain *plain) {
    const octet *text = self->line + value->start;
    size_t size = value->end - value->start;
    switch (name->meaning) {
    case TITLE:
        if (plain->has_subject) Py_CLEAR(plain->subject);
        if (plain->has_subject || value->escaped) Py_CLEAR(plain->terms);
        else if (derive_subject(self, text, size, plain) == ERROR) return ERROR;
        plain->has_subject = true;
        break;
    case IDENTIFIER:
        if (!plain->has_identifier && !value->escaped
            && derive_identifier(self, text, size, plain) == ERROR)
            return ERROR;
        plain->has_identifier = true;
        break;
    default: break;
    }
    return DONE;
}

static void forget_plain(Plain *plain) {
    Py_CLEAR(plain->subject);
    Py_CLEAR(plain->terms);
    Py_CLEAR(plain->identifier);
    Py_CLEAR(plain->identifier_term);
}

static PyObject *or_none(PyObject *object) { return object ? object : Py_None; }

/* ---- One line -------------------------------------------------------------------------------- */

/* Find the group of each field, and list the values of those from which anything is derived. */
static Outcome survey_fields(Reader *self, uint32_t fields, octet *groups, PyObject *values,
                             Plain *plain) {
    const Node *list = &self->nodes[fields];
    for (uint32_t one = fields + 1; one < list->next; one = self->nodes[one].next) {
        const Node *field = &self->nodes[one], *name = field + 1;
        if (field->kind != LIST || field->count != 2 || name->kind != TEXT || name->escaped
            || self->nodes[one + 2].kind != TEXT)
            return UNUSUAL;
        const Name *known = known_name(self, name);
        *groups++ = known && name->end - name->start <= SHORT ? known->group : FIELDS;
        if (!known || !known->wanted) continue;
        PyObject *octets = value_octets(self, one + 2);
        PyObject *pair = octets ? PyTuple_Pack(2, known->wanted, octets) : NULL;
        int failed = pair ? PyList_Append(values, pair) : -1;
        Py_XDECREF(octets);
        Py_XDECREF(pair);
        if (failed) return ERROR;
        if (known->meaning != ANY) TRY(derive(self, known, &self->nodes[one + 2], plain));
    }
    return DONE;
}

static Outcome commit(Reader *self, Record *record, const octet *groups, octet entry[2 * DIGEST]) {
    octet salt[SALT], bases[3 * SALT]; /* of the rest, of the fields, of the subject */
    TRY(read_salt(self, record->salt, salt));
    TRY(shake(self, salt, SALT, bases, sizeof bases));
    TRY(commit_rest(self, record, bases, entry));
    return commit_header(self, record->fields, groups, bases + SALT, entry + DIGEST);
}

static Outcome digest_line(Reader *self, const octet *line, size_t size, octet digest[DIGEST]) {
    EVP_MD_CTX *context = self->hashing;
    if (EVP_DigestInit_ex(context, self->sha256, NULL) && EVP_DigestUpdate(context, "", 1)
        && EVP_DigestUpdate(context, line, size) && EVP_DigestFinal_ex(context, digest, NULL))
        return DONE;
    return failed_hash();
}

static PyObject *answer(Reader *self, const Record *record, PyObject *values, const Plain *plain,
                        const octet entry[2 * DIGEST], const octet digest[DIGEST]) {
    PyObject *parts[4] = {
        make_object(self, 0, record->fields),
        header_text(self, record->fields),
        PyBytes_FromStringAndSize((const char *)entry, 2 * DIGEST),
        PyBytes_FromStringAndSize((const char *)digest, DIGEST),
    };
    PyObject *made = NULL;
    if (parts[0] && parts[1] && parts[2] && parts[3])
        made = PyTuple_Pack(9, parts[0], parts[1], values, parts[2], parts[3],
                            or_none(plain->subject), or_none(plain->terms),
                            or_none(plain->identifier), or_none(plain->identifier_term));
    for (size_t number = 0; number < 4; number++) Py_XDECREF(parts[number]);
    return made;
}

static Outcome take_line(Reader *self, const octet *line, size_t size, unsigned long checksum,
                         PyObject *values, Plain *plain, PyObject **made) {
    char tail[TAIL + 2];
    if (size <= TAIL + 1 || size > LONGEST || *line != '{') return UNUSUAL;
    snprintf(tail, sizeof tail, ",\"crc32\":\"%08lx\"}\n", checksum & 0xFFFFFFFF);
    if (memcmp(line + size - TAIL - 1, tail, TAIL + 1)) return UNUSUAL;
    self->line = line, self->at = 0, self->end = size - TAIL - 1, self->count = 0;
    TRY(read_many(self, OBJECT, 1));
    Record record;
    TRY(find_parts(self, &record));
    octet *groups = malloc(self->nodes[record.fields].count + 1u);
    if (!groups) {
        PyErr_NoMemory();
        return ERROR;
    }
    octet entry[2 * DIGEST], digest[DIGEST];
    Outcome outcome = survey_fields(self, record.fields, groups, values, plain);
    if (outcome == DONE) outcome = commit(self, &record, groups, entry);
    if (outcome == DONE) outcome = digest_line(self, line, size, digest);
    free(groups);
    if (outcome != DONE) return outcome;
    *made = answer(self, &record, values, plain, entry, digest);
    return *made ? DONE : ERROR;
}

static void forget_line(Reader *self) {
    self->line = NULL;
    if (self->room * sizeof *self->nodes > KEPT) {
        free(self->nodes);
        self->nodes = NULL;
        self->count = self->room = 0;
    }
    Buffer *const buffers[] = {&self->part, &self->digests, &self->text};
    for (size_t number = 0; number < 3; number++)
        if (buffers[number]->room > KEPT) release(buffers[number]);
}

static PyObject *take_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Reader *self = (Reader *)object;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyLong_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take(line: bytes, checksum: int) expected");
        return NULL;
    }
    unsigned long checksum = PyLong_AsUnsignedLong(args[1]);
    PyObject *values = PyErr_Occurred() ? NULL : PyList_New(0), *made = NULL;
    if (!values) return NULL;
    Plain plain = {0};
    Outcome outcome = take_line(self, (const octet *)PyBytes_AsString(args[0]),
                                (size_t)PyBytes_Size(args[0]), checksum, values, &plain, &made);
    Py_DECREF(values);
    forget_plain(&plain);
    forget_line(self);
    if (outcome == UNUSUAL) Py_RETURN_NONE;
    return made;
}

/* ---- The type -------------------------------------------------------------------------------- */

static Name *name_of(Reader *self, const char *text, size_t size) {
    for (size_t number = 0; number < self->name_count; number++) {
        Name *name = &self->names[number];
        if (name->size == size && !memcmp(name->text, text, size)) return name;
    }
    Name *name = &self->names[self->name_count++];
    *name = (Name){.group = FIELDS, .size = (octet)size};
    memcpy(name->text, text, size);
    static const char *const meanings[] = {[IDENTIFIER] = "message-id",
                                           [TITLE] = "subject"};
    for (size_t meaning = IDENTIFIER; meaning <= TITLE; meaning++)
        if (strlen(meanings[meaning]) == size && !memcmp(meanings[meaning], text, size))
            name->meaning = (octet)meaning;
    return name;
}

/* Remember names; `group` FIELDS: as those from which something is derived. */
static int add_names(Reader *self, PyObject *given, octet group) {
    PyObject *list = PySequence_List(given);
    if (!list) return -1;
    Py_ssize_t count = PyList_Size(list), size;
    Name *names = realloc(self->names, (self->name_count + (size_t)count + 1) * sizeof *names);
    if (!names) PyErr_NoMemory();
    else self->names = names;
    for (Py_ssize_t number = 0; names && number < count; number++) {
        PyObject *one = PyList_GetItem(list, number);
        const char *text = one ? PyUnicode_AsUTF8AndSize(one, &size) : NULL;
        if (!text) break;
        if (size > LONGEST_NAME) {
            PyErr_SetString(PyExc_ValueError, "no header field has so long a name");
            break;
        }
        Name *name = name_of(self, text, (size_t)size);
        if (group != FIELDS) {
            name->group = group;
        } else if (!name->wanted) {
            Py_INCREF(one);
            name->wanted = one;
        }
    }
    Py_DECREF(list);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *words[] = {"wanted", "naming", "about", NULL};
    PyObject *wanted, *naming, *about;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OOO", words, &wanted, &naming, &about))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Reader *self = (Reader *)allocate(type, 0); /* filled with zeros */
    if (!self) return NULL;
    self->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    self->shake128 = EVP_MD_fetch(NULL, "SHAKE128", NULL);
    self->hashing = EVP_MD_CTX_new();
    self->shaking = EVP_MD_CTX_new();
    if (!self->sha256 || !self->shake128 || !self->hashing || !self->shaking)
        failed_hash();
    else if (!add_names(self, wanted, FIELDS) && !add_names(self, naming, ADDRESSES)
             && !add_names(self, about, SUBJECT))
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void deallocate(PyObject *object) {
    Reader *self = (Reader *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);
    for (size_t number = 0; number < self->name_count; number++)
        Py_XDECREF(self->names[number].wanted);
    for (size_t number = 0; number < KEYS; number++) Py_XDECREF(self->keys[number].text);
    free(self->names);
    free(self->nodes);
    release(&self->part);
    release(&self->digests);
    release(&self->text);
    EVP_MD_free(self->sha256);
    EVP_MD_free(self->shake128);
    EVP_MD_CTX_free(self->hashing);
    EVP_MD_CTX_free(self->shaking);
    free_object(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"take", (PyCFunction)(void (*)(void))take_method, METH_FASTCALL,
     "What a line says, taken apart; None for one that is not usual."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Takes lines of the spool apart; see spool_line.py."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "carbonseal.milter.archive._spool_line.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static int fill(PyObject *module) {
    PyObject *type = PyType_FromSpec(&spec);
    int failed = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    Py_XDECREF(type);
    return failed;
}

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_spool_line", .m_size = 0, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__spool_line(void) { return PyModuleDef_Init(&definition); }
