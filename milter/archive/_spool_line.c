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

#include "_growing.h"
#include "_record_text.h"
/* SHA-256 by its older interface: a record takes fifteen hashes, most of them of less than three
   hundred octets, and the newer one spends 1,400 instructions on finding its way to each. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/evp.h>
#include <openssl/sha.h>

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
#define LONGEST_FOLDED 1000 /* the same with the folding */
#define TERMS 1024          /* remembered terms of words; a power of two */
#define COMMON_WORD 22      /* characters of the longest word that is remembered */

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
    PyObject *number;
    octet size;
    octet word[COMMON_WORD];
} Term;

typedef struct {
    PyObject_HEAD
    Name *names;
    size_t name_count;
    Key keys[KEYS];
    Term terms[TERMS];
    EVP_MD *shake128;
    EVP_MD_CTX *shaking;
    Node *nodes;
    uint32_t count;
    size_t room;
    Buffer part, digests, text;
    int flat;          /* whether usual records are wanted flat */
    const octet *line; /* while one is read */
    size_t at, end;
} Reader;

/* ---- Working memory -------------------------------------------------------------------------- */

#define LONGEST_NUMBER 24 /* digits */

/* Where the digits of a number begin, which end with the room; printf would take ten times as long. */
static char *decimal(char room[LONGEST_NUMBER], size_t number) {
    char *first = room + LONGEST_NUMBER;
    do *--first = (char)('0' + number % 10);
    while (number /= 10);
    return first;
}

static Outcome append_number(Buffer *buffer, size_t number) {
    char room[LONGEST_NUMBER], *first = decimal(room, number);
    return append(buffer, first, (size_t)(room + LONGEST_NUMBER - first));
}

#define APPEND(buffer, literal) append(buffer, literal, sizeof(literal) - 1)

/* ---- Reading JSON ---------------------------------------------------------------------------- */

static Outcome add_node(Reader *self, Kind kind, uint32_t *place) {
    if (self->count == self->room) {
        Node *nodes = grown(self->nodes, &self->room, sizeof *nodes);
        if (!nodes) return ERROR;
        self->nodes = nodes;
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

static Outcome read_text(Reader *self, uint32_t *place) {
    self->at++; /* the quotation mark */
    TRY(add_node(self, TEXT, place));
    Node *node = &self->nodes[*place];
    const octet *line = self->line;
    for (;;) {
        self->at += plain_run(line + self->at, self->end - self->at);
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

/* The first octets of a key as a number, of which most keys differ: keys are in their order. */
static uint64_t head_of(const Reader *self, uint32_t key) {
    const Node *node = &self->nodes[key];
    const octet *from = self->line + node->start;
    size_t size = node->end - node->start, most = sizeof(uint64_t);
    uint64_t head = 0;
    if (size < most && self->end - node->start < most) { /* nothing behind it may be read */
        for (size_t at = 0; at < most; at++) head = head << 8 | (at < size ? from[at] : 0);
        return head;
    }
    for (size_t at = 0; at < most; at++) head = head << 8 | from[at];
    return size < most ? head & ~(UINT64_MAX >> 8 * size) : head;
}

/* Sort keys; UNUSUAL where one is there twice. */
static Outcome sort_keys(const Reader *self, uint32_t *keys, size_t count) {
    uint64_t heads[MOST_KEYS];
    for (size_t done = 0; done < count; done++) {
        uint32_t key = keys[done];
        uint64_t head = head_of(self, key);
        size_t place = done;
        for (; place && heads[place - 1] >= head; place--) {
            if (heads[place - 1] == head) {
                int order = compare_keys(self, keys[place - 1], key);
                if (!order) return UNUSUAL;
                if (order < 0) break;
            }
            keys[place] = keys[place - 1];
            heads[place] = heads[place - 1];
        }
        keys[place] = key;
        heads[place] = head;
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

/* Of a mark, unless it is negative, and then of octets. */
static bool hash_marked(int mark, const void *octets, size_t size, octet digest[DIGEST]) {
    SHA256_CTX context;
    octet first = (octet)mark;
    return SHA256_Init(&context) && (mark < 0 || SHA256_Update(&context, &first, 1))
           && SHA256_Update(&context, octets, size) && SHA256_Final(digest, &context);
}

static Outcome hash(const void *octets, size_t size, octet digest[DIGEST]) {
    return hash_marked(-1, octets, size, digest) ? DONE : failed_hash();
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
    TRY(hash(self->part.octets, self->part.size, self->digests.octets + self->digests.size));
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

static Outcome take_slot(uint32_t *slot, uint32_t value) {
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
            TRY(take_slot(slot, key + 1));
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
    TRY(APPEND(names, ",\"recipients/")); /* which are never the first */
    TRY(append_number(names, first));
    TRY(APPEND(names, "\""));
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
    return hash(names->octets, names->size, digest);
}

/* The next salt of the rest: ten come from one hash. */
static Outcome next_salt(Reader *self, const octet base[SALT], size_t place,
                         octet row[ROW * SALT], const octet **salt) {
    if (place % ROW == 0) {
        char room[LONGEST_NUMBER], *first = decimal(room, place / ROW), seed[SALT + LONGEST_NUMBER];
        size_t size = (size_t)(room + LONGEST_NUMBER - first);
        memcpy(seed, base, SALT);
        memcpy(seed + SALT, first, size);
        TRY(shake(self, seed, SALT + size, row, ROW * SALT));
    }
    *salt = row + place % ROW * SALT;
    return DONE;
}

static Outcome commit_rest(Reader *self, Record *record, const octet base[SALT],
                           octet digest[DIGEST]) {
    octet row[ROW * SALT];
    const octet *salt;
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
        TRY(begin_part(self, salt, "recipients/"));
        TRY(append_number(&self->part, number++));
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
    size_t place = 0;
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
    return hash(self->part.octets, self->part.size, digest);
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

static PyObject *make_term(const octet *text, size_t size) {
    octet digest[DIGEST];
    if (hash(text, size, digest) != DONE) return NULL;
    long long number = digest[0] < 128 ? 0 : -1; /* signed, the highest octet first */
    for (size_t place = 0; place < 6; place++) number = number * 256 + digest[place];
    return PyLong_FromLongLong(number);
}

/* The same of a word: subjects use the same ones over and over. */
static PyObject *word_term(Reader *self, const octet *word, size_t size) {
    if (size > COMMON_WORD) return make_term(word, size);
    uint32_t mixed = 2166136261u;
    for (size_t place = 0; place < size; place++) mixed = (mixed ^ word[place]) * 16777619u;
    Term *known = &self->terms[(mixed ^ mixed >> 16) % TERMS];
    if (!known->number || known->size != size || memcmp(known->word, word, size)) {
        PyObject *number = make_term(word, size);
        if (!number) return NULL;
        Py_XDECREF(known->number);
        known->number = number;
        known->size = (octet)size;
        memcpy(known->word, word, size);
    }
    Py_INCREF(known->number);
    return known->number;
}

/* Terms of the words of a text without escapes in which none is too long. */
static PyObject *word_terms(Reader *self, const octet *text, size_t size) {
    octet word[LONGEST_WORD];
    size_t length = 0;
    PyObject *made = PyList_New(0);
    for (size_t place = 0; made && place <= size; place++) {
        octet sign = place < size ? text[place] : ' ';
        if (is_letter_or_digit(sign)) {
            word[length++] = is_capital(sign) ? sign | 0x20 : sign;
            continue;
        }
        if (!length) continue;
        PyObject *term = word_term(self, word, length);
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
        length = is_letter_or_digit(text[place]) ? length + 1 : 0;
        if (length > LONGEST_WORD) return DONE;
    }
    plain->subject = PyUnicode_FromStringAndSize((const char *)text, (Py_ssize_t)size);
    plain->terms = plain->subject ? word_terms(self, text, size) : NULL;
    return plain->terms ? DONE : ERROR;
}

static bool is_blank(const octet *text, size_t place, size_t size) {
    return place < size && (text[place] == ' ' || text[place] == '\t');
}

/* A value with escapes, if those are of line ends, tabs, quotation marks and backslashes: unfolded,
   and with a space for each other line end and tab. */
static Outcome unfold(Reader *self, PyObject *value) {
    char *given;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(value, &given, &length) < 0) return ERROR;
    const octet *text = (const octet *)given;
    size_t size = (size_t)length;
    if (size > LONGEST_FOLDED) return UNUSUAL;
    self->text.size = 0;
    TRY(make_room(&self->text, size));
    for (size_t place = 0; place < size; place++) {
        octet sign = text[place];
        if (sign == '\r' && place + 1 < size && text[place + 1] == '\n'
            && is_blank(text, place + 2, size)) {
            place++;
            continue;
        }
        if (sign == '\n' && is_blank(text, place + 1, size)) continue;
        if (sign == '\r' || sign == '\n' || sign == '\t') sign = ' ';
        if (sign < 0x20 || sign >= 0x7F) return UNUSUAL;
        self->text.octets[self->text.size++] = sign;
    }
    return DONE;
}

static Outcome derive_folded_subject(Reader *self, PyObject *value, Plain *plain) {
    Outcome outcome = unfold(self, value);
    if (outcome != DONE) return outcome == ERROR ? ERROR : DONE;
    return derive_subject(self, self->text.octets, self->text.size, plain);
}

static Outcome derive_identifier(const octet *text, size_t size, Plain *plain) {
    while (size && *text == ' ') text++, size--;
    while (size && text[size - 1] == ' ') size--;
    if (size < 3 || text[0] != '<' || text[size - 1] != '>') return DONE;
    for (size_t place = 1; place < size - 1; place++)
        if (text[place] == ' ' || text[place] == '<' || text[place] == '>') return DONE;
    plain->identifier = PyUnicode_FromStringAndSize((const char *)text + 1, (Py_ssize_t)size - 2);
    plain->identifier_term = plain->identifier ? make_term(text + 1, size - 2) : NULL;
    return plain->identifier_term ? DONE : ERROR;
}

/* Of several fields of a name the first counts; of several subjects the words of all.  `octets`: the
   value. */
static Outcome derive(Reader *self, const Name *name, const Node *value, PyObject *octets,
                      Plain *plain) {
    const octet *text = self->line + value->start;
    size_t size = value->end - value->start;
    switch (name->meaning) {
    case TITLE:
        if (plain->has_subject) Py_CLEAR(plain->subject);
        if (plain->has_subject) Py_CLEAR(plain->terms);
        else if (value->escaped) TRY(derive_folded_subject(self, octets, plain));
        else TRY(derive_subject(self, text, size, plain));
        plain->has_subject = true;
        break;
    case IDENTIFIER:
        if (!plain->has_identifier && !value->escaped
            && derive_identifier(text, size, plain) == ERROR)
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

/* ---- A usual record, flat -------------------------------------------------------------------- */

/* Most records say each thing in the one way in which columns hold it exactly.  Of those the values
   that differ from message to message come as they are stored, and what recurs (a client, a
   recipient, the form of a signature) as a key: the octets that say it, by which Python remembers
   what it made of them.  A record that is otherwise in any way is left to `rows.split`. */

enum {
    M_V, M_RECORD_ID, M_RECORDED_AT, M_RELAY, M_CONFIG_VERSION, M_QUEUE_ID, M_LISTENER, M_CLIENT,
    M_LOGIN, M_LOGIN_METHOD, M_TLS, M_ORIGIN, M_REVERSE_PATH, M_RECIPIENTS, M_CROSSING,
    M_HEADER_FIELDS, M_HEADER_COUNT, M_HEADER_SIZE, M_BODY_SIZE, M_SIZE, M_BODY_HASH, M_SIGNATURES,
    M_ARCHIVE_RECIPIENTS, M_ARCHIVE_ADDRESSED, M_DISPOSITION, M_REASONS, M_SALT, M_RETENTION,
    M_BCC_MAPS, MEMBERS
};
static const char *const members[MEMBERS] = {
    "v", "record_id", "recorded_at", "relay", "config_version", "queue_id", "listener", "client",
    "login", "login_method", "tls", "origin", "reverse_path", "recipients", "crossing",
    "header_fields", "header_count", "header_size", "body_size", "size", "body_hash", "signatures",
    "archive_recipients", "archive_addressed", "disposition", "reasons", "salt", "retention",
    "bcc_maps",
};
enum { ADDRESS, NAME, HELO, PORT, CLIENT_MEMBERS };
static const char *const client_members[CLIENT_MEMBERS] = {"address", "name", "helo", "port"};
enum { KIND, ABOUT, ORIGIN_MEMBERS };
static const char *const origin_members[ORIGIN_MEMBERS] = {"kind", "about"};
enum { ESMTP = 5, PATH_MEMBERS };
static const char *const path_members[PATH_MEMBERS] = {"raw",   "address", "resolved",
                                                       "place", "why",     "esmtp"};
enum { RECIPIENT_MEMBERS = 8 };
static const char *const recipient_members[RECIPIENT_MEMBERS] = {
    "raw", "address", "resolved", "place", "why", "mailer", "host", "esmtp",
};
enum { SIGNED_AT = 6, EXPIRES_AT, SIGNATURE_MEMBERS };
static const char *const signature_members[SIGNATURE_MEMBERS] = {
    "auid", "sdid", "selector", "algorithm", "canonicalization", "fields", "signed_at",
    "expires_at",
};
enum { CANONICALIZATION, DIGEST_OF_BODY, HASH_MEMBERS };
static const char *const hash_members[HASH_MEMBERS] = {"canonicalization", "sha256"};
static const char *const crossings[] = {"internal", "outbound", "inbound", "transit", NULL};
static const char *const dispositions[] = {"accept", "tempfail", "reject", NULL};

#define LONGEST_QUEUE_ID 255
#define DIGEST_TEXT 44 /* characters of 32 octets in base64 */

typedef struct {
    uint32_t record[MEMBERS], client[CLIENT_MEMBERS], origin[ORIGIN_MEMBERS], path[PATH_MEMBERS];
    uint32_t hash[HASH_MEMBERS]; /* zeros where there is none */
    long long recorded_at;
    long crossing, disposition;
    octet digest[DIGEST];
} Flat;

/* Where the values of an object with exactly these members are. */
static Outcome find_members(const Reader *self, uint32_t place, const char *const *names,
                            uint32_t count, uint32_t *values) {
    const Node *object = &self->nodes[place];
    if (object->kind != OBJECT || object->count != count) return UNUSUAL;
    memset(values, 0, count * sizeof *values);
    uint32_t number = 0; /* they mostly come in the same order */
    for (uint32_t key = place + 1; key < object->next; key = self->nodes[key + 1].next) {
        uint32_t tried = 0;
        while (!is_text(self, key, names[number])) {
            if (++tried == count) return UNUSUAL;
            number = (number + 1) % count;
        }
        TRY(take_slot(&values[number], key + 1));
        number = (number + 1) % count;
    }
    return DONE;
}

static bool is_plain_text(const Reader *self, uint32_t place) {
    return self->nodes[place].kind == TEXT && !self->nodes[place].escaped;
}

static bool is_count(const Reader *self, uint32_t place) {
    return self->nodes[place].kind == NUMBER && self->line[self->nodes[place].start] != '-';
}

static long long count_of(const Reader *self, uint32_t place) {
    long long number = 0;
    for (size_t at = self->nodes[place].start; at < self->nodes[place].end; at++)
        number = number * 10 + (self->line[at] - '0');
    return number;
}

static long choice(const Reader *self, uint32_t place, const char *const *names) {
    for (long number = 0; names[number]; number++)
        if (is_text(self, place, names[number])) return number;
    return -1;
}

/* The number that so many digits are; -1 where others are among them. */
static int digits(const octet *text, size_t count) {
    int number = 0;
    for (size_t place = 0; place < count; place++) {
        if (!is_digit(text[place])) return -1;
        number = number * 10 + (text[place] - '0');
    }
    return number;
}

/* Microseconds since 1970 of 2026-11-22T01:02:03.000004Z. */
static Outcome read_moment(const Reader *self, uint32_t place, long long *moment) {
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const octet *text = self->line + self->nodes[place].start;
    if (!is_plain_text(self, place) || self->nodes[place].end - self->nodes[place].start != 27)
        return UNUSUAL;
    static const char form[] = "0000-00-00T00:00:00.000000Z";
    for (size_t sign = 0; sign < 27; sign++)
        if (form[sign] != '0' && text[sign] != form[sign]) return UNUSUAL;
    int year = digits(text, 4), month = digits(text + 5, 2), day = digits(text + 8, 2);
    int hour = digits(text + 11, 2), minute = digits(text + 14, 2), second = digits(text + 17, 2);
    int fraction = digits(text + 20, 6);
    if (year < 1 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0
        || minute > 59 || second < 0 || second > 59 || fraction < 0)
        return UNUSUAL;
    bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (day > lengths[month - 1] + (month == 2 && is_leap)) return UNUSUAL;
    long long days = (year - 1) * 365LL + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    for (int before = 1; before < month; before++)
        days += lengths[before - 1] + (before == 2 && is_leap);
    days += day - 1 - 719162; /* from the year 1 to 1970 */
    *moment = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000000 + fraction;
    return DONE;
}

static int base64_value(octet sign) {
    if (is_capital(sign)) return sign - 'A';
    if (is_small(sign)) return sign - 'a' + 26;
    if (is_digit(sign)) return sign - '0' + 52;
    return sign == '+' ? 62 : sign == '/' ? 63 : -1;
}

static Outcome read_digest(const Reader *self, uint32_t place, octet digest[DIGEST]) {
    const octet *text = self->line + self->nodes[place].start;
    if (!is_plain_text(self, place)
        || self->nodes[place].end - self->nodes[place].start != DIGEST_TEXT
        || text[DIGEST_TEXT - 1] != '=')
        return UNUSUAL;
    unsigned long bits = 0;
    size_t made = 0;
    for (size_t sign = 0; sign < DIGEST_TEXT - 1; sign++) {
        int value = base64_value(text[sign]);
        if (value < 0) return UNUSUAL;
        bits = (bits << 6 | (unsigned long)value) & 0xFFFFFF;
        size_t known = (sign + 1) * 6 - made * 8;
        if (known >= 8) digest[made++] = (octet)(bits >> (known - 8));
    }
    return bits & 3 ? UNUSUAL : DONE; /* the last two say nothing */
}

static bool are_texts(const Reader *self, uint32_t place) {
    const Node *list = &self->nodes[place];
    if (list->kind != LIST) return false;
    for (uint32_t one = place + 1; one < list->next; one++)
        if (self->nodes[one].kind != TEXT) return false;
    return true;
}

static Outcome find_flat(Reader *self, Flat *flat) {
    TRY(find_members(self, 0, members, MEMBERS, flat->record));
    const uint32_t *record = flat->record;
    TRY(find_members(self, record[M_CLIENT], client_members, CLIENT_MEMBERS, flat->client));
    TRY(find_members(self, record[M_ORIGIN], origin_members, ORIGIN_MEMBERS, flat->origin));
    TRY(find_members(self, record[M_REVERSE_PATH], path_members, PATH_MEMBERS, flat->path));
    TRY(read_moment(self, record[M_RECORDED_AT], &flat->recorded_at));
    memset(flat->hash, 0, sizeof flat->hash);
    if (self->nodes[record[M_BODY_HASH]].kind != NOTHING) {
        TRY(find_members(self, record[M_BODY_HASH], hash_members, HASH_MEMBERS, flat->hash));
        TRY(read_digest(self, flat->hash[DIGEST_OF_BODY], flat->digest));
    }
    flat->crossing = choice(self, record[M_CROSSING], crossings);
    flat->disposition = choice(self, record[M_DISPOSITION], dispositions);
    static const octet counts[] = {M_HEADER_COUNT, M_HEADER_SIZE, M_BODY_SIZE, M_SIZE, M_V};
    for (size_t number = 0; number < sizeof counts; number++)
        if (!is_count(self, record[counts[number]])) return UNUSUAL;
    const Node *login = &self->nodes[record[M_LOGIN]], *queue = &self->nodes[record[M_QUEUE_ID]];
    const Node *addressed = &self->nodes[record[M_ARCHIVE_ADDRESSED]];
    bool is_usual =
        flat->crossing >= 0 && flat->disposition >= 0
        && is_count(self, flat->client[PORT])
        && is_plain_text(self, record[M_RECORD_ID]) && is_plain_text(self, record[M_QUEUE_ID])
        && queue->end - queue->start <= LONGEST_QUEUE_ID
        && (login->kind == NOTHING || is_plain_text(self, record[M_LOGIN]))
        && (addressed->kind == YES || addressed->kind == NO)
        && self->nodes[record[M_BCC_MAPS]].kind == NOTHING
        && self->nodes[record[M_RECIPIENTS]].kind == LIST
        && self->nodes[record[M_SIGNATURES]].kind == LIST
        && self->nodes[flat->path[ESMTP]].kind == LIST
        && self->nodes[flat->origin[ABOUT]].kind == TEXT
        && are_texts(self, record[M_ARCHIVE_RECIPIENTS]) && are_texts(self, record[M_REASONS]);
    return is_usual ? DONE : UNUSUAL;
}

static Outcome append_written(Reader *self, uint32_t place) {
    const Node *node = &self->nodes[place];
    uint32_t mark = node->kind == TEXT;
    return append(&self->text, self->line + node->start - mark, node->end - node->start + 2 * mark);
}

/* Values as a list in JSON, in the octets of the line. */
static PyObject *make_joined(Reader *self, const uint32_t *values, size_t count) {
    self->text.size = 0;
    for (size_t number = 0; number < count; number++)
        if (APPEND(&self->text, ",") != DONE || append_written(self, values[number]) != DONE)
            return NULL;
    if (APPEND(&self->text, "]") != DONE) return NULL;
    self->text.octets[0] = '[';
    return text_bytes(self);
}

static PyObject *make_written(const Reader *self, uint32_t place) {
    return slice_bytes(self, &self->nodes[place]);
}

/* What the records of thousands of messages have in common.  0 stands for an origin that is the
   login, 1 for one that is the client. */
static PyObject *make_common(Reader *self, const Flat *flat) {
    static const octet common[] = {M_V, M_RELAY, M_CONFIG_VERSION, M_LISTENER, M_LOGIN_METHOD,
                                   M_TLS, M_RETENTION};
    const Node *about = &self->nodes[flat->origin[ABOUT]];
    self->text.size = 0;
    for (size_t number = 0; number < sizeof common; number++)
        if (APPEND(&self->text, ",") != DONE
            || append_written(self, flat->record[common[number]]) != DONE)
            return NULL;
    if (APPEND(&self->text, ",") != DONE || append_written(self, flat->origin[KIND]) != DONE)
        return NULL;
    const uint32_t same_as[] = {flat->record[M_LOGIN], flat->client[ADDRESS]};
    const char *mark = NULL;
    for (size_t number = 0; number < 2 && !mark && about->kind == TEXT; number++) {
        const Node *other = &self->nodes[same_as[number]];
        uint32_t size = about->end - about->start;
        if (size && other->kind == TEXT && other->end - other->start == size
            && !memcmp(self->line + about->start, self->line + other->start, size))
            mark = number ? ",1" : ",0";
    }
    if (mark ? append(&self->text, mark, 2) != DONE
             : APPEND(&self->text, ",") != DONE
                   || append_written(self, flat->origin[ABOUT]) != DONE)
        return NULL;
    if (flat->hash[DIGEST_OF_BODY] ? APPEND(&self->text, ",") != DONE
                                 || append_written(self, flat->hash[CANONICALIZATION]) != DONE
                           : APPEND(&self->text, ",null") != DONE)
        return NULL;
    if (APPEND(&self->text, "]") != DONE) return NULL;
    self->text.octets[0] = '[';
    return text_bytes(self);
}

/* ESMTP parameters as their column has them; those that are not plain, or do not begin with SIZE,
   as octets of JSON. */
static PyObject *make_esmtp(Reader *self, uint32_t place) {
    const Node *list = &self->nodes[place];
    if (!list->count) Py_RETURN_NONE;
    self->text.size = 0;
    bool is_usual = are_texts(self, place) && self->nodes[place + 1].end
                    - self->nodes[place + 1].start > 5
                    && !memcmp(self->line + self->nodes[place + 1].start, "SIZE=", 5);
    for (uint32_t one = place + 1; is_usual && one < list->next; one++) {
        const Node *text = &self->nodes[one];
        size_t size = text->end - text->start;
        is_usual = size && !text->escaped && !memchr(self->line + text->start, ' ', size);
        if (one > place + 1 && APPEND(&self->text, " ") != DONE) return NULL;
        if (append(&self->text, self->line + text->start, size) != DONE) return NULL;
    }
    if (!is_usual) return make_written(self, place);
    return PyUnicode_FromStringAndSize((const char *)self->text.octets + 4,
                                       (Py_ssize_t)self->text.size - 4);
}

static size_t put_varint(octet *to, long long number) {
    size_t size = 0;
    for (; number > 127; number >>= 7) to[size++] = (octet)((number & 127) | 128);
    to[size++] = (octet)number;
    return size;
}

/* As `packed.pack_numbers` packs them. */
static PyObject *make_numbers(const Reader *self, const Flat *flat) {
    octet packed[1 + 4 * 10];
    long long size = count_of(self, flat->record[M_SIZE]);
    long long header_size = count_of(self, flat->record[M_HEADER_SIZE]);
    long long body_size = count_of(self, flat->record[M_BODY_SIZE]);
    bool is_sum = body_size == size - header_size - 2; /* an empty line between them */
    size_t made = 0;
    packed[made++] = is_sum ? 1 : 2;
    made += put_varint(packed + made, count_of(self, flat->client[PORT]));
    made += put_varint(packed + made, count_of(self, flat->record[M_HEADER_COUNT]));
    made += put_varint(packed + made, header_size);
    if (!is_sum) made += put_varint(packed + made, body_size);
    return PyBytes_FromStringAndSize((const char *)packed, (Py_ssize_t)made);
}

static PyObject *make_all(Reader *self, uint32_t place, PyObject *(*make)(Reader *, uint32_t)) {
    PyObject *made = PyList_New((Py_ssize_t)self->nodes[place].count);
    Py_ssize_t number = 0;
    uint32_t next = self->nodes[place].next;
    for (uint32_t one = place + 1; made && one < next; one = self->nodes[one].next) {
        PyObject *element = make(self, one);
        if (!element || PyList_SetItem(made, number++, element) < 0) Py_CLEAR(made);
    }
    return made;
}

static PyObject *make_recipient(Reader *self, uint32_t place) {
    uint32_t values[RECIPIENT_MEMBERS];
    if (find_members(self, place, recipient_members, RECIPIENT_MEMBERS, values) != DONE)
        return PyBytes_FromStringAndSize("", 0); /* which Python takes for unusual */
    return make_joined(self, values, RECIPIENT_MEMBERS);
}
static PyObject *make_text_of(Reader *self, uint32_t place) {
    return make_text(self, &self->nodes[place]);
}
static PyObject *make_value_of(Reader *self, uint32_t place) { return make_object(self, place, 0); }

static PyObject *make_signature(Reader *self, uint32_t place) {
    uint32_t values[SIGNATURE_MEMBERS];
    if (find_members(self, place, signature_members, SIGNATURE_MEMBERS, values) != DONE
        || !is_count(self, values[SIGNED_AT])
        || !(is_count(self, values[EXPIRES_AT])
             || self->nodes[values[EXPIRES_AT]].kind == NOTHING))
        Py_RETURN_NONE; /* which Python takes for unusual */
    PyObject *key = make_joined(self, values, SIGNED_AT);
    PyObject *signed_at = make_value_of(self, values[SIGNED_AT]);
    PyObject *expires_at = make_value_of(self, values[EXPIRES_AT]);
    PyObject *made = key && signed_at && expires_at ? PyTuple_Pack(3, key, signed_at, expires_at)
                                                    : NULL;
    Py_XDECREF(key);
    Py_XDECREF(signed_at);
    Py_XDECREF(expires_at);
    return made;
}

static PyObject *make_octets(const octet *octets, size_t size) {
    return PyBytes_FromStringAndSize((const char *)octets, (Py_ssize_t)size);
}

/* In the order of `spool_line.Flat`; `salts`: of the line, and of all but the header section. */
static PyObject *make_flat(Reader *self, const Flat *flat, const octet salts[2 * SALT]) {
    const uint32_t *record = flat->record;
    PyObject *made[] = {
        make_text_of(self, record[M_RECORD_ID]),
        PyLong_FromLongLong(flat->recorded_at),
        make_text_of(self, record[M_QUEUE_ID]),
        make_value_of(self, record[M_LOGIN]),
        make_common(self, flat),
        make_joined(self, flat->client, PORT),
        make_joined(self, flat->path, ESMTP),
        make_esmtp(self, flat->path[ESMTP]),
        make_all(self, record[M_RECIPIENTS], make_recipient),
        make_all(self, record[M_ARCHIVE_RECIPIENTS], make_text_of),
        make_all(self, record[M_SIGNATURES], make_signature),
        make_all(self, record[M_REASONS], make_text_of),
        PyLong_FromLong(flat->crossing),
        PyLong_FromLong(flat->disposition),
        make_value_of(self, record[M_ARCHIVE_ADDRESSED]),
        make_value_of(self, record[M_SIZE]),
        make_numbers(self, flat),
        flat->hash[DIGEST_OF_BODY] ? make_octets(flat->digest, DIGEST) : make_value_of(self, record[M_BODY_HASH]),
        make_octets(salts, SALT),
        make_octets(salts + SALT, SALT),
    };
    const size_t count = sizeof made / sizeof *made;
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (size_t number = 0; number < count; number++) {
        if (!made[number] || !tuple) Py_CLEAR(tuple);
        if (tuple) PyTuple_SetItem(tuple, (Py_ssize_t)number, made[number]);
        else Py_XDECREF(made[number]);
    }
    return tuple;
}

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
        Py_XDECREF(pair);
        Outcome outcome = failed ? ERROR : DONE;
        if (outcome == DONE && known->meaning != ANY)
            outcome = derive(self, known, &self->nodes[one + 2], octets, plain);
        Py_XDECREF(octets);
        TRY(outcome);
    }
    return DONE;
}

/* `salts`: of the line, then of the rest, of the fields and of the subject. */
static Outcome commit(Reader *self, Record *record, const octet *groups, octet salts[4 * SALT],
                      octet entry[2 * DIGEST]) {
    octet *bases = salts + SALT;
    TRY(read_salt(self, record->salt, salts));
    TRY(shake(self, salts, SALT, bases, 3 * SALT));
    TRY(commit_rest(self, record, bases, entry));
    return commit_header(self, record->fields, groups, bases + SALT, entry + DIGEST);
}

static Outcome digest_line(const octet *line, size_t size, octet digest[DIGEST]) {
    return hash_marked(0, line, size, digest) ? DONE : failed_hash();
}

/* All of the record but its header section; where it comes flat, its id alone. */
static PyObject *make_content(Reader *self, const Record *record, PyObject *flat) {
    if (!flat) return make_object(self, 0, record->fields);
    PyObject *content = PyDict_New();
    if (content && PyDict_SetItemString(content, "record_id", PyTuple_GetItem(flat, 0)) < 0)
        Py_CLEAR(content);
    return content;
}

/* A line, taken apart but for its octets. */
typedef struct {
    Record record;
    Plain plain;
    PyObject *values, *flat; /* our own; NULL: it is not usual */
    octet entry[2 * DIGEST], digest[DIGEST];
} Taken;

static PyObject *answer(Reader *self, const Taken *taken) {
    const Plain *plain = &taken->plain;
    PyObject *values = taken->values, *flat = taken->flat, *parts[4] = {
        make_content(self, &taken->record, flat),
        header_text(self, taken->record.fields),
        PyBytes_FromStringAndSize((const char *)taken->entry, 2 * DIGEST),
        PyBytes_FromStringAndSize((const char *)taken->digest, DIGEST),
    };
    PyObject *made = NULL;
    if (parts[0] && parts[1] && parts[2] && parts[3])
        made = PyTuple_Pack(10, parts[0], parts[1], values, parts[2], parts[3],
                            or_none(plain->subject), or_none(plain->terms),
                            or_none(plain->identifier), or_none(plain->identifier_term),
                            or_none(flat));
    for (size_t number = 0; number < 4; number++) Py_XDECREF(parts[number]);
    return made;
}

static Outcome take_line(Reader *self, const octet *line, size_t size, unsigned long checksum,
                         Taken *taken) {
    char tail[] = ",\"crc32\":\"00000000\"}\n";
    if (size <= TAIL + 1 || size > LONGEST || *line != '{') return UNUSUAL;
    for (size_t at = TAIL - 3, left = checksum; at >= TAIL - 10; at--, left >>= 4)
        tail[at] = "0123456789abcdef"[left & 15];
    if (memcmp(line + size - TAIL - 1, tail, TAIL + 1)) return UNUSUAL;
    self->line = line, self->at = 0, self->end = size - TAIL - 1, self->count = 0;
    TRY(read_many(self, OBJECT, 1));
    Record *record = &taken->record;
    TRY(find_parts(self, record));
    octet *groups = malloc(self->nodes[record->fields].count + 1u);
    if (!groups) {
        PyErr_NoMemory();
        return ERROR;
    }
    octet salts[4 * SALT];
    Outcome outcome = survey_fields(self, record->fields, groups, taken->values, &taken->plain);
    if (outcome == DONE) outcome = commit(self, record, groups, salts, taken->entry);
    if (outcome == DONE) outcome = digest_line(line, size, taken->digest);
    free(groups);
    if (outcome != DONE) return outcome;
    Flat found;
    if (!self->flat || find_flat(self, &found) != DONE) return DONE;
    return (taken->flat = make_flat(self, &found, salts)) ? DONE : ERROR;
}

/* Take a line apart; whatever comes of it, `forget_taken` afterwards. */
static Outcome take(Reader *self, PyObject *line, PyObject *checksum, Taken *taken) {
    taken->plain = (Plain){0};
    taken->values = taken->flat = NULL;
    unsigned long number = PyLong_AsUnsignedLong(checksum);
    if (PyErr_Occurred() || !(taken->values = PyList_New(0))) return ERROR;
    return take_line(self, (const octet *)PyBytes_AsString(line), (size_t)PyBytes_Size(line), number,
                     taken);
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

static void forget_taken(Reader *self, Taken *taken) {
    Py_XDECREF(taken->values);
    Py_XDECREF(taken->flat);
    forget_plain(&taken->plain);
    forget_line(self);
}

static PyObject *take_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Reader *self = (Reader *)object;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyLong_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "take(line: bytes, checksum: int) expected");
        return NULL;
    }
    Taken taken;
    Outcome outcome = take(self, args[0], args[1], &taken);
    PyObject *made = outcome == DONE ? answer(self, &taken) : NULL;
    forget_taken(self, &taken);
    if (outcome == UNUSUAL) Py_RETURN_NONE;
    return made;
}

/* ---- A run of usual lines -------------------------------------------------------------------- */

typedef struct {
    PyObject *checksum, *tail, *make, *indexed; /* not our own, but for `tail` */
    PyObject *rows, *texts;
    Buffer evidence, digests;
    size_t octets;
} Run;

/* What `make` makes of a line: UNUSUAL where that is nothing, or an exception that it will raise
   again when Python takes the line. */
static Outcome make_rows(const Run *run, const Taken *taken, PyObject **rows) {
    const Plain *plain = &taken->plain;
    PyObject *apart = PyTuple_Pack(10, Py_None, Py_None, taken->values, Py_None, Py_None,
                                   or_none(plain->subject), or_none(plain->terms),
                                   or_none(plain->identifier), or_none(plain->identifier_term),
                                   taken->flat);
    if (!apart) return ERROR;
    *rows = PyObject_CallFunctionObjArgs(run->make, apart, run->indexed, NULL);
    Py_DECREF(apart);
    if (*rows && *rows != Py_None) return DONE;
    Py_CLEAR(*rows);
    if (!PyErr_Occurred()) return UNUSUAL;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return ERROR;
    PyErr_Clear();
    return UNUSUAL;
}

static Outcome append_line(Reader *self, Run *run, PyObject *line, const Taken *taken) {
    PyObject *rows = NULL, *text = NULL;
    if (!taken->flat) return UNUSUAL;
    Outcome outcome = (text = header_text(self, taken->record.fields)) ? DONE : ERROR;
    if (outcome == DONE) outcome = make_rows(run, taken, &rows);
    if (outcome == DONE
        && (PyList_Append(run->rows, rows) < 0 || PyList_Append(run->texts, text) < 0))
        outcome = ERROR;
    Py_XDECREF(rows);
    Py_XDECREF(text);
    TRY(outcome);
    TRY(append(&run->evidence, taken->entry, sizeof taken->entry));
    TRY(append(&run->digests, taken->digest, sizeof taken->digest));
    run->octets += (size_t)PyBytes_Size(line);
    return DONE;
}

static Outcome run_over(Reader *self, Run *run, PyObject *line) {
    PyObject *checksum = PyObject_CallFunctionObjArgs(run->checksum, line, run->tail, NULL);
    if (!checksum) return ERROR;
    Taken taken;
    Outcome outcome = take(self, line, checksum, &taken);
    if (outcome == DONE) outcome = append_line(self, run, line, &taken);
    Py_DECREF(checksum);
    forget_taken(self, &taken);
    return outcome;
}

static PyObject *answer_run(const Run *run) {
    PyObject *octets[] = {make_octets(run->evidence.octets, run->evidence.size),
                          make_octets(run->digests.octets, run->digests.size),
                          PyLong_FromSize_t(run->octets)};
    PyObject *made = NULL;
    if (octets[0] && octets[1] && octets[2])
        made = PyTuple_Pack(5, run->rows, run->texts, octets[0], octets[1], octets[2]);
    for (size_t number = 0; number < 3; number++) Py_XDECREF(octets[number]);
    return made;
}

static PyObject *run_method(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Reader *self = (Reader *)object;
    Py_ssize_t first = -1, end = -1;
    if (count == 4 && PyList_Check(args[0]) && PyTuple_Check(args[3])
        && PyTuple_Size(args[3]) == 3) {
        first = PyLong_AsSsize_t(args[1]);
        end = PyErr_Occurred() ? -1 : PyLong_AsSsize_t(args[2]);
    }
    if (first < 0 || end < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError,
                            "run(lines: list, first: int, end: int, (checksum, make, indexed)) "
                            "expected");
        return NULL;
    }
    Run run = {.checksum = PyTuple_GetItem(args[3], 0),
               .make = PyTuple_GetItem(args[3], 1),
               .indexed = PyTuple_GetItem(args[3], 2)};
    run.tail = PyLong_FromLong(TAIL + 1);
    run.rows = PyList_New(0);
    run.texts = PyList_New(0);
    Outcome outcome = run.tail && run.rows && run.texts ? DONE : ERROR;
    for (Py_ssize_t at = first; outcome == DONE && at < end && at < PyList_Size(args[0]); at++) {
        PyObject *line = PyList_GetItem(args[0], at);
        if (!PyBytes_Check(line)) {
            outcome = UNUSUAL;
            break;
        }
        Py_INCREF(line); /* whatever is asked meanwhile does to the list */
        outcome = run_over(self, &run, line);
        Py_DECREF(line);
    }
    PyObject *made = outcome == ERROR ? NULL : answer_run(&run);
    Py_XDECREF(run.tail);
    Py_XDECREF(run.rows);
    Py_XDECREF(run.texts);
    release(&run.evidence);
    release(&run.digests);
    return made;
}

/* ---- Merkle roots ---------------------------------------------------------------------------- */

/* Leaves of lines of `size` octets; 0: they are leaves. */
static bool make_leaves(const octet *octets, size_t size, octet *leaves, size_t count) {
    bool is_made = true;
    if (!size) memcpy(leaves, octets, count * DIGEST);
    for (size_t number = 0; size && is_made && number < count; number++)
        is_made = hash_marked(0, octets + number * size, size, leaves + number * DIGEST);
    return is_made;
}

/* Each level in the place of the one below; the root is then the first. */
static bool grow_to_root(octet *nodes, size_t count) {
    bool is_made = true;
    for (; is_made && count > 1; count = count / 2 + count % 2) {
        for (size_t pair = 0; is_made && pair < count / 2; pair++)
            is_made = hash_marked(1, nodes + 2 * pair * DIGEST, 2 * DIGEST, nodes + pair * DIGEST);
        if (count % 2) memmove(nodes + count / 2 * DIGEST, nodes + (count - 1) * DIGEST, DIGEST);
    }
    return is_made;
}

static bool make_root(const octet *octets, size_t size, size_t count, octet *nodes,
                      octet digest[DIGEST]) {
    if (!count) return hash_marked(-1, "", 0, digest);
    bool is_made = make_leaves(octets, size, nodes, count) && grow_to_root(nodes, count);
    if (is_made) memcpy(digest, nodes, DIGEST);
    return is_made;
}

static PyObject *root_function(PyObject *module, PyObject *const *args, Py_ssize_t given) {
    (void)module;
    long long size = given == 2 && PyBytes_Check(args[0]) && PyLong_Check(args[1])
                         ? PyLong_AsLongLong(args[1]) : -1;
    if (PyErr_Occurred()) return NULL;
    size_t all = size < 0 ? 0 : (size_t)PyBytes_Size(args[0]);
    size_t each = size > 0 ? (size_t)size : DIGEST;
    if (size < 0 || size > (1LL << 30) || all % each) {
        PyErr_SetString(PyExc_ValueError, "root(lines: bytes, size: int) of whole lines expected");
        return NULL;
    }
    size_t count = all / each;
    const octet *octets = (const octet *)PyBytes_AsString(args[0]);
    octet digest[DIGEST], *nodes = malloc((count ? count : 1) * DIGEST);
    if (!nodes) return PyErr_NoMemory();
    bool is_made;
    Py_BEGIN_ALLOW_THREADS
    is_made = make_root(octets, (size_t)size, count, nodes, digest);
    Py_END_ALLOW_THREADS
    free(nodes);
    if (is_made) return make_octets(digest, DIGEST);
    failed_hash();
    return NULL;
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
    static char *words[] = {"wanted", "naming", "about", "flat", NULL};
    PyObject *wanted, *naming, *about;
    int flat = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "OOO|p", words, &wanted, &naming, &about, &flat))
        return NULL;
    Reader *self = new_object(type);
    if (!self) return NULL;
    self->flat = flat;
    self->shake128 = EVP_MD_fetch(NULL, "SHAKE128", NULL);
    self->shaking = EVP_MD_CTX_new();
    if (!self->shake128 || !self->shaking)
        failed_hash();
    else if (!add_names(self, wanted, FIELDS) && !add_names(self, naming, ADDRESSES)
             && !add_names(self, about, SUBJECT))
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void deallocate(PyObject *object) {
    Reader *self = (Reader *)object;
    for (size_t number = 0; number < self->name_count; number++)
        Py_XDECREF(self->names[number].wanted);
    for (size_t number = 0; number < KEYS; number++) Py_XDECREF(self->keys[number].text);
    for (size_t number = 0; number < TERMS; number++) Py_XDECREF(self->terms[number].number);
    free(self->names);
    free(self->nodes);
    release(&self->part);
    release(&self->digests);
    release(&self->text);
    EVP_MD_free(self->shake128);
    EVP_MD_CTX_free(self->shaking);
    free_object(object);
}

static PyMethodDef methods[] = {
    {"take", FASTCALL(take_method),
     "What a line says, taken apart; None for one that is not usual."},
    {"run", FASTCALL(run_method),
     "Rows, header sections, evidence, digests and octets of usual lines up to the first other."},
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

static int fill(PyObject *module) { return add_type(module, &spec); }

static PyMethodDef functions[] = {
    {"root", FASTCALL(root_function),
     "The Merkle root over lines of one size that follow one another; size 0: over leaves."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_spool_line", .m_size = 0, .m_methods = functions,
    .m_slots = parts,
};

PyMODINIT_FUNC PyInit__spool_line(void) { return PyModuleDef_Init(&definition); }
