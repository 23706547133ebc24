/* An RSA key that signs, and makes and verifies a whole field: the compiled twin of held_key.py.
 *
 * The same answers as `Plain` there and `make_plainly` and `verifies_plainly` in signer.py give,
 * which tests/keys/test_held_key.py compares.  Here because each message pays for it: cryptography
 * makes a new context for each signature and each verification and looks its algorithms up anew, and
 * the interpreter takes two hundred steps around them, through code and data that other work has
 * driven out of the processor's caches meanwhile.  In one call with the canonical form of what is
 * signed (_canonical_fields.h), which thereby is hashed where it was put, and never in an object.
 *
 * With OpenSSL's older interface, deprecated as it is: it needs no context, which threads would have
 * to share or make anew; and it reads a key without leaving a copy of it behind, where the decoders
 * of the newer one give memory back that still holds the primes.  Without it, the twin runs.
 *
 * A key never leaves its object: there is no way to read, copy or pickle it, and no error shows it.
 *
 * Bounds: time is linear in the octets; what is written is at most three times as long as the field.
 */

#define _GNU_SOURCE /* memmem */
#define OPENSSL_API_COMPAT 0x10101000L
#include "_canonical_fields.h"
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#define LONGEST 1024     /* octets of a signature: RSA-8192 */
#define LARGEST 65536    /* octets of a key file */
#define B_TAG ";\n b="   /* b= is the last tag; a verifier takes its value out and nothing else */
#define B_TAG_SIZE (sizeof B_TAG - 1)
#define FOLDED_AT 54     /* octets of a signature on a line: 72 letters */
#define LONGEST_B ((LONGEST / FOLDED_AT + 1) * (FOLDED_AT / 3 * 4 + 2))
#define BODY_HASH_SIZE 44 /* 32 octets in base64 */
#define LONGEST_TAIL 128  /* t=, x=, bh= and the tag of b=: two numbers of 20 digits, 61 more */
#define USUAL_FIELD 8192  /* octets for a field and its canonical form without memory of their own */

typedef struct {
    PyObject_HEAD
    RSA *private, *public; /* two objects: what verifies shares nothing with what signs */
} Key;

/* --- reading a key --- */

static RSA *of_pkcs8(const octet *der, long size) {
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &der, size);
    const ASN1_OBJECT *algorithm = NULL;
    const octet *inner = NULL;
    int inner_size = 0;
    RSA *made = NULL;
    if (info && PKCS8_pkey_get0(&algorithm, &inner, &inner_size, NULL, info)
        && OBJ_obj2nid(algorithm) == NID_rsaEncryption)
        made = d2i_RSAPrivateKey(NULL, &inner, inner_size);
    PKCS8_PRIV_KEY_INFO_free(info); /* cleanses it */
    return made;
}

/* Nobody is asked at a terminal. */
static int no_password(char *Py_UNUSED(to), int Py_UNUSED(size), int Py_UNUSED(writing),
                       void *Py_UNUSED(more)) {
    return -1;
}

static RSA *read_private(const char *pem, Py_ssize_t size) {
    octet *der = NULL;
    long der_size = 0;
    char *label = NULL;
    RSA *made = NULL;
    BIO *source = BIO_new_mem_buf(pem, (int)size); /* no copy */
    if (source
        && PEM_bytes_read_bio_secmem(&der, &der_size, &label, PEM_STRING_EVP_PKEY, source,
                                     no_password, NULL)) {
        const octet *at = der;
        if (!strcmp(label, PEM_STRING_RSA)) made = d2i_RSAPrivateKey(NULL, &at, der_size);
        else if (!strcmp(label, PEM_STRING_PKCS8INF)) made = of_pkcs8(der, der_size);
        OPENSSL_cleanse(der, (size_t)der_size);
        OPENSSL_secure_free(der);
        OPENSSL_secure_free(label);
    }
    BIO_free(source);
    return made;
}

static RSA *public_half(const RSA *private) {
    RSA *made = RSA_new();
    BIGNUM *n = BN_dup(RSA_get0_n(private)), *e = BN_dup(RSA_get0_e(private));
    if (made && n && e && RSA_set0_key(made, n, e, NULL)) return made;
    BN_free(n);
    BN_free(e);
    RSA_free(made);
    return NULL;
}

static PyObject *new_key(PyTypeObject *type, PyObject *args, PyObject *named) {
    const char *pem;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "y#", &pem, &size)) return NULL;
    if (named && PyDict_Size(named)) {
        PyErr_SetString(PyExc_TypeError, "the key has no name");
        return NULL;
    }
    Key *key = new_object(type);
    if (!key) return NULL;
    if (size <= LARGEST) key->private = read_private(pem, size);
    if (key->private && RSA_size(key->private) <= LONGEST)
        key->public = public_half(key->private);
    ERR_clear_error();
    if (key->public) return (PyObject *)key;
    Py_DECREF(key);
    PyErr_SetString(PyExc_ValueError, "it is no RSA key");
    return NULL;
}

static void drop(PyObject *self) {
    RSA_free(((Key *)self)->private); /* cleanses it */
    RSA_free(((Key *)self)->public);
    free_object(self);
}

static PyObject *refuse_to_leave(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none)) {
    PyErr_SetString(PyExc_TypeError, "a key does not leave its process");
    return NULL;
}

static PyObject *public_octets(PyObject *self, PyObject *Py_UNUSED(none)) {
    octet *der = NULL;
    int size = i2d_RSA_PUBKEY(((Key *)self)->public, &der);
    if (size < 0) {
        ERR_clear_error();
        return PyErr_NoMemory();
    }
    PyObject *made = PyBytes_FromStringAndSize((char *)der, size);
    OPENSSL_free(der);
    return made;
}

/* --- signing and verifying --- */

static PyObject *sign(PyObject *self, PyObject *digest) {
    RSA *private = ((Key *)self)->private;
    octet made[LONGEST];
    unsigned made_size = 0;
    char *octets;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(digest, &octets, &size)) return NULL;
    if (size != SHA256_DIGEST_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a digest has 32 octets");
        return NULL;
    }
    int is_made;
    /* OpenSSL guards what threads share in a key; nobody changes or drops this one meanwhile. */
    Py_BEGIN_ALLOW_THREADS
    is_made = RSA_sign(NID_sha256, (octet *)octets, SHA256_DIGEST_LENGTH, made, &made_size,
                       private);
    if (is_made != 1) ERR_clear_error();
    Py_END_ALLOW_THREADS
    if (is_made == 1) return PyBytes_FromStringAndSize((char *)made, (Py_ssize_t)made_size);
    PyErr_SetString(PyExc_RuntimeError, "OpenSSL made no signature");
    return NULL;
}

static bool is_valid(Key *key, const void *digest, const void *signature, size_t size) {
    if (size > LONGEST) return false;
    bool answer = RSA_verify(NID_sha256, digest, SHA256_DIGEST_LENGTH, signature, (unsigned)size,
                             key->public) == 1;
    if (!answer) ERR_clear_error();
    return answer;
}

static PyObject *verifies(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    char *digest, *signature;
    Py_ssize_t size, signature_size;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "digest and signature are needed");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &digest, &size)
        || PyBytes_AsStringAndSize(args[1], &signature, &signature_size))
        return NULL;
    if (size != SHA256_DIGEST_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a digest has 32 octets");
        return NULL;
    }
    /* With the interpreter lock held: getting it back can cost more than this takes. */
    return PyBool_FromLong(is_valid((Key *)self, digest, signature, (size_t)signature_size));
}

/* --- a finished field --- */

/* What Python takes for white space in bytes. */
static bool is_white(char octet) { return octet == ' ' || (octet >= '\t' && octet <= '\r'); }

static size_t put_relaxed(char *to, const char *from, size_t size) {
    const char *start = to;
    bool had_space = false;
    for (size_t i = 0; i < size;) {
        if (is_white(from[i])) {
            had_space = true;
            i++;
            continue;
        }
        if (had_space && to != start) *to++ = ' ';
        had_space = false;
        do *to++ = from[i++]; /* a word, in one loop that asks little */
        while (i < size && (octet)from[i] > ' ');
    }
    return (size_t)(to - start);
}

static size_t put_simple(char *to, const char *from, size_t size) {
    const char *start = to;
    for (size_t i = 0; i < size; i++) {
        if (from[i] == '\n' && !(i && from[i - 1] == '\r')) *to++ = '\r';
        *to++ = from[i];
    }
    return (size_t)(to - start);
}

/* The six bits of a letter; -1: it is none.  From a table, as no processor foresees which kind of
   letter comes next: comparing takes three times as long. */
static int meaning(char letter) {
    static const signed char one_more[256] = {
        ['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8,
        ['I'] = 9, ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
        ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
        ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
        ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
        ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
        ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
        ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64};
    return one_more[(octet)letter] - 1;
}

/* Of as many groups of four letters as there are before anything else and fit into `most` octets.
   Returns the letters. */
static size_t decode_groups(octet *to, size_t most, const char *from, size_t size) {
    size_t i = 0;
    for (; size - i >= 4 && most >= 3; i += 4, most -= 3) {
        int first = meaning(from[i]), second = meaning(from[i + 1]);
        int third = meaning(from[i + 2]), fourth = meaning(from[i + 3]);
        if ((first | second | third | fourth) < 0) break;
        *to++ = (octet)(first << 2 | second >> 4);
        *to++ = (octet)(second << 4 | third >> 2);
        *to++ = (octet)(third << 6 | fourth);
    }
    return i;
}

/* Base64 with folds, and nothing else.  Returns the octets; -1: it is anything else. */
static Py_ssize_t decode(octet *to, const char *from, size_t size) {
    octet *start = to;
    unsigned group = 0, letters = 0, padding = 0;
    for (size_t i = 0; i < size; i++) {
        if (!letters && !padding) {
            size_t taken = decode_groups(to, (size_t)(start + LONGEST - to), from + i, size - i);
            to += taken / 4 * 3;
            i += taken;
            if (i == size) break;
        }
        if (from[i] == '\n' && i + 1 < size && from[i + 1] == ' ') {
            i++;
            continue;
        }
        int bits = from[i] == '=' ? 0 : meaning(from[i]);
        if (bits < 0 || (padding && from[i] != '=')) return -1;
        padding += from[i] == '=';
        group = group << 6 | (unsigned)bits;
        if (++letters < 4) continue;
        /* Bits that padding cuts off are zero, so that a signature has one form only. */
        if (padding > 2 || (group & ((1u << 8 * padding) - 1))) return -1;
        if (to - start + 3 - padding > LONGEST) return -1;
        for (unsigned place = 0; place < 3 - padding; place++)
            *to++ = (octet)(group >> (16 - 8 * place));
        group = letters = 0;
    }
    return letters ? -1 : to - start;
}

static bool hash(const Piece *signed_fields, const Piece *name, const char *own, size_t own_size,
                 octet *digest) {
    SHA256_CTX context;
    return SHA256_Init(&context)
           && SHA256_Update(&context, signed_fields->octets, (size_t)signed_fields->size)
           && SHA256_Update(&context, name->octets, (size_t)name->size)
           && SHA256_Update(&context, own, own_size) && SHA256_Final(digest, &context);
}

/* What a finished field claims: a signature, and the digest that it is to be over. */
typedef struct {
    octet octets[SHA256_DIGEST_LENGTH + LONGEST]; /* digest, then signature */
    Py_ssize_t size;
} Claim;

/* `own` has room for twice the field.  Nothing is known of it but its octets. */
static bool read_claim(const Piece *signed_fields, const Piece *name, const Piece *value,
                       bool is_relaxed, char *own, Claim *claim) {
    const char *tag = memmem(value->octets, (size_t)value->size, B_TAG, B_TAG_SIZE);
    if (!tag) return false;
    const char *start = tag + B_TAG_SIZE;
    Py_ssize_t size = decode(claim->octets + SHA256_DIGEST_LENGTH, start,
                             (size_t)(value->octets + value->size - start));
    if (size < 0) return false;
    claim->size = SHA256_DIGEST_LENGTH + size;
    size_t before = (size_t)(start - value->octets);
    size_t own_size = (is_relaxed ? put_relaxed : put_simple)(own, value->octets, before);
    return hash(signed_fields, name, own, own_size, claim->octets);
}

static bool does_claim_hold(Key *key, const Claim *claim) {
    return is_valid(key, claim->octets, claim->octets + SHA256_DIGEST_LENGTH,
                    (size_t)claim->size - SHA256_DIGEST_LENGTH);
}

/* For the tests, which ask about fields that `make_signature` never makes. */
static PyObject *verifies_field(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    Piece signed_fields, name, value;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "signed, name, value and is_relaxed are needed");
        return NULL;
    }
    if (!read_piece(args[0], &signed_fields) || !read_piece(args[1], &name)) return NULL;
    value.octets = PyUnicode_AsUTF8AndSize(args[2], &value.size);
    int is_relaxed = value.octets ? PyObject_IsTrue(args[3]) : -1;
    if (is_relaxed < 0) return NULL;
    char *own = PyMem_Malloc(2 * (size_t)value.size + 1);
    if (!own) return PyErr_NoMemory();
    Claim claim;
    bool answer = read_claim(&signed_fields, &name, &value, is_relaxed, own, &claim)
                  && does_claim_hold((Key *)self, &claim);
    PyMem_Free(own);
    return PyBool_FromLong(answer);
}

/* --- making one --- */

static char *put_base64(char *to, const octet *from, size_t size) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i = 0;
    for (; size - i >= 3; i += 3) {
        unsigned group = (unsigned)from[i] << 16 | (unsigned)from[i + 1] << 8 | from[i + 2];
        *to++ = letters[group >> 18];
        *to++ = letters[group >> 12 & 63];
        *to++ = letters[group >> 6 & 63];
        *to++ = letters[group & 63];
    }
    if (i < size) {
        bool has_second = i + 1 < size;
        unsigned group = (unsigned)from[i] << 16;
        if (has_second) group |= (unsigned)from[i + 1] << 8;
        *to++ = letters[group >> 18];
        *to++ = letters[group >> 12 & 63];
        *to++ = has_second ? letters[group >> 6 & 63] : '=';
        *to++ = '=';
    }
    return to;
}

static char *put_folded(char *to, const octet *from, size_t size) {
    for (size_t i = 0; i < size; i += FOLDED_AT) {
        if (i) to = put(to, "\n ", 2);
        to = put_base64(to, from + i, size - i < FOLDED_AT ? size - i : FOLDED_AT);
    }
    return to;
}

/* Not by printf, which is much code for ten digits. */
static char *put_number(char *to, long long number) {
    char digits[20], *first = digits + sizeof digits;
    unsigned long long left = (unsigned long long)number;
    if (number < 0) {
        *to++ = '-';
        left = 0 - left;
    }
    do *--first = (char)('0' + left % 10);
    while (left /= 10);
    return put(to, first, (size_t)(digits + sizeof digits - first));
}

/* What is the same in all fields of a plan: signer.Form. */
typedef struct {
    Piece text, beginning, name;
    Selection selection;
    PyObject *expires_after, *kind; /* borrowed */
} Form;

enum { TEXT, BEGINNING, NAME, IS_RELAXED, PLACES, ORDER, EXPIRES_AFTER, KIND, PARTS };

static bool read_form(PyObject *given, Form *form) {
    if (!PyTuple_Check(given) || PyTuple_Size(given) != PARTS) {
        PyErr_Format(PyExc_TypeError, "a form has %d parts", PARTS);
        return false;
    }
    if (!read_piece(PyTuple_GetItem(given, TEXT), &form->text)
        || !read_piece(PyTuple_GetItem(given, BEGINNING), &form->beginning)
        || !read_piece(PyTuple_GetItem(given, NAME), &form->name)
        || !read_piece(PyTuple_GetItem(given, PLACES), &form->selection.names)
        || !read_piece(PyTuple_GetItem(given, ORDER), &form->selection.order))
        return false;
    int is_relaxed = PyObject_IsTrue(PyTuple_GetItem(given, IS_RELAXED));
    form->selection.is_relaxed = is_relaxed == 1;
    form->expires_after = PyTuple_GetItem(given, EXPIRES_AFTER);
    form->kind = PyTuple_GetItem(given, KIND);
    if (PyType_Check(form->kind)
        && PyType_IsSubtype((PyTypeObject *)form->kind, &PyTuple_Type))
        return is_relaxed >= 0;
    PyErr_SetString(PyExc_TypeError, "a signature is a kind of tuple");
    return false;
}

/* t= and x=, as they are written and as Python has them. */
typedef struct {
    long long now, expires_at;
    bool has_expiry;
    PyObject *for_python[2];
} Times;

static void drop_times(Times *times) {
    Py_XDECREF(times->for_python[0]);
    Py_XDECREF(times->for_python[1]);
}

static bool read_times(PyObject *now, PyObject *expires_after, Times *times) {
    PyObject *whole = PyFloat_Check(now) ? PyNumber_Long(now) : PyNumber_Index(now);
    times->has_expiry = expires_after != Py_None;
    PyObject *sum = !whole              ? NULL
                    : times->has_expiry ? PyNumber_Add(whole, expires_after)
                                        : Py_NewRef(Py_None);
    times->for_python[0] = whole;
    times->for_python[1] = sum;
    /* PyLong_AsLongLong would go by way of an array of octets. */
    int is_beyond = 0, is_sum_beyond = 0;
    times->now = sum ? PyLong_AsLongLongAndOverflow(whole, &is_beyond) : 0;
    times->expires_at =
        sum && times->has_expiry ? PyLong_AsLongLongAndOverflow(sum, &is_sum_beyond) : 0;
    if (is_beyond || is_sum_beyond)
        PyErr_SetString(PyExc_OverflowError, "a time beyond 64 bits");
    if (!PyErr_Occurred()) return true;
    drop_times(times);
    return false;
}

/* What differs: t=, x= and bh=, with the tag of b= at the end. */
static char *put_tail(char *to, const Times *times, const char *body_hash) {
    to = put_number(put(to, " t=", 3), times->now);
    if (times->has_expiry) to = put_number(put(to, "; x=", 4), times->expires_at);
    to = put(put(to, "; bh=", 5), body_hash, BODY_HASH_SIZE);
    return put(to, B_TAG, B_TAG_SIZE);
}

/* The field without its b= is at `value`, and its last `tail` octets are what differs.  Returns
   the end; NULL: OpenSSL made no signature. */
static char *put_signature(Key *key, const Piece *signed_fields, const Form *form, char *end,
                           size_t tail) {
    char canonical[2 * LONGEST_TAIL];
    octet digest[SHA256_DIGEST_LENGTH], made[LONGEST];
    unsigned made_size = 0;
    bool is_relaxed = form->selection.is_relaxed;
    size_t size = (is_relaxed ? put_relaxed : put_simple)(canonical, end - tail, tail);
    bool is_made = hash(signed_fields, &form->beginning, canonical, size, digest)
                   && RSA_sign(NID_sha256, digest, sizeof digest, made, &made_size,
                               key->private) == 1;
    if (is_made) return put_folded(end, made, made_size);
    ERR_clear_error();
    return NULL;
}

/* The signer.Signature, if its text is the octets that were read; False: it is not.  `unproven`
   octets of the claim are left to be verified. */
static PyObject *in_python(const Piece *value, const char *body_hash, const Form *form,
                           PyObject *request, const Times *times, const Claim *claim,
                           Py_ssize_t unproven) {
    PyObject *text = PyUnicode_FromStringAndSize(value->octets, value->size);
    PyObject *hash_text = PyUnicode_FromStringAndSize(body_hash, BODY_HASH_SIZE), *made = NULL;
    PyObject *left = PyBytes_FromStringAndSize((const char *)claim->octets, unproven);
    Py_ssize_t size;
    const char *octets = text && hash_text && left ? PyUnicode_AsUTF8AndSize(text, &size) : NULL;
    if (octets && (size != value->size || memcmp(octets, value->octets, (size_t)size))) {
        made = Py_NewRef(Py_False);
    } else if (octets) {
        PyObject *const parts[] = {text, request, hash_text, times->for_python[0],
                                   times->for_python[1], left};
        const Py_ssize_t count = sizeof parts / sizeof *parts;
        /* As tuple.__new__ makes it, without another tuple to take the parts from. */
        made = PyType_GenericAlloc((PyTypeObject *)form->kind, count);
        for (Py_ssize_t i = 0; made && i < count; i++)
            PyTuple_SetItem(made, i, Py_NewRef(parts[i]));
    }
    Py_XDECREF(text);
    Py_XDECREF(hash_text);
    Py_XDECREF(left);
    return made;
}

/* `value`, which has room for three times the longest that may be made: what is not the field is
   for its canonical form.  1: it is made, and claims this; 0: it is not as it should be, -1:
   OpenSSL made no signature. */
static int make_value(Key *key, const Piece *signed_fields, const Form *form, const Times *times,
                      const octet *body_digest, char *body_hash, char *field, size_t longest,
                      Piece *value, Claim *claim) {
    put_base64(body_hash, body_digest, SHA256_DIGEST_LENGTH);
    char *tail = put(field, form->text.octets, (size_t)form->text.size);
    char *end = put_tail(tail, times, body_hash);
    end = put_signature(key, signed_fields, form, end, (size_t)(end - tail));
    if (!end) return -1;
    value->octets = field;
    value->size = end - field;
    return read_claim(signed_fields, &form->name, value, form->selection.is_relaxed,
                      field + longest, claim);
}

static PyObject *make_over(Key *key, const Piece *signed_fields, const Form *form,
                           PyObject *request, const octet *body_digest, const Times *times,
                           bool is_left) {
    size_t longest = (size_t)form->text.size + LONGEST_TAIL + LONGEST_B;
    char usual[USUAL_FIELD], body_hash[BODY_HASH_SIZE];
    char *field = 3 * longest <= sizeof usual ? usual : PyMem_Malloc(3 * longest);
    if (!field) return PyErr_NoMemory();
    Piece value;
    Claim claim;
    int answer;
    /* As in `sign`. */
    Py_BEGIN_ALLOW_THREADS
    answer = make_value(key, signed_fields, form, times, body_digest, body_hash, field, longest,
                        &value, &claim);
    if (answer > 0 && !is_left) answer = does_claim_hold(key, &claim);
    Py_END_ALLOW_THREADS
    PyObject *made = NULL;
    if (answer < 0) PyErr_SetString(PyExc_RuntimeError, "OpenSSL made no signature");
    else made = answer ? in_python(&value, body_hash, form, request, times, &claim,
                                   is_left ? claim.size : 0)
                       : Py_NewRef(Py_False);
    if (field != usual) PyMem_Free(field);
    return made;
}

static PyObject *make(PyObject *self, PyObject *const *args, Py_ssize_t given, bool is_left) {
    Piece body_digest;
    Form form;
    Times times;
    Canonical canonical;
    if (given != 5) {
        PyErr_SetString(PyExc_TypeError, "fields, form, request, body_digest and now are needed");
        return NULL;
    }
    if (!read_form(args[1], &form) || !read_piece(args[3], &body_digest)) return NULL;
    if (body_digest.size != SHA256_DIGEST_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a digest has 32 octets");
        return NULL;
    }
    if (!read_times(args[4], form.expires_after, &times)) return NULL;
    PyObject *made = NULL;
    switch (make_canonical(args[0], &form.selection, &canonical)) {
    case FAULT: break;
    case PYTHON_MUST: made = Py_NewRef(Py_None); break;
    case IS_MADE:
        made = make_over((Key *)self, &canonical.signed_fields, &form, args[2],
                         (const octet *)body_digest.octets, &times, is_left);
        drop_canonical(&canonical);
    }
    drop_times(&times);
    return made;
}

static PyObject *make_signature(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    return make(self, args, given, false);
}

static PyObject *make_unproven(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    return make(self, args, given, true);
}

static PyMethodDef methods[] = {
    {"public_octets", public_octets, METH_NOARGS, "The DER SubjectPublicKeyInfo."},
    {"sign", sign, METH_O, "sign(digest): see held_key.Plain."},
    {"verifies", FASTCALL(verifies),
     "verifies(digest, signature): see held_key.Plain."},
    {"verifies_field", FASTCALL(verifies_field),
     "verifies_field(signed, name, value, is_relaxed): see signer.verifies_plainly."},
    {"make_signature", FASTCALL(make_signature),
     "make_signature(fields, form, request, body_digest, now): see held_key.Held."},
    {"make_unproven", FASTCALL(make_unproven),
     "make_unproven(fields, form, request, body_digest, now): see held_key.Held."},
    {"__reduce__", refuse_to_leave, METH_NOARGS, "Refused."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot key_parts[] = {
    {Py_tp_new, new_key},
    {Py_tp_dealloc, drop},
    {Py_tp_methods, methods},
    {Py_tp_doc, "Key(pem): an RSA key; ValueError where the PEM holds none."},
    {0, NULL},
};
static PyType_Spec key_type = {
    .name = "carbonseal.keys._held_key.Key",
    .basicsize = sizeof(Key),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = key_parts,
};

static int fill(PyObject *module) { return add_type(module, &key_type); }

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_held_key", .m_size = 0, .m_slots = parts,
};

PyMODINIT_FUNC PyInit__held_key(void) { return PyModuleDef_Init(&definition); }
