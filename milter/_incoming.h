/* What the parts of this extension know of each other: _incoming.c, and _usual_message.c above it.
 *
 * Bounds: a packet has at most LONGEST octets, kept macros MOST_OF_MACROS at a stage.
 */

#ifndef CARBONSEAL_INCOMING_H
#define CARBONSEAL_INCOMING_H

#include "../keys/_extension.h"

#define PREFIX 4 /* octets of a packet's length, which counts what comes after them */
#define HEAD 5   /* octets before a packet's payload: the length and the command */
#define LONGEST (96 * 1024)
#define MOST_MACROS 256
#define MOST_OF_MACROS (32 * 1024)
#define STAGES 7
#define NOTHING (-1L)

typedef struct {
    PyObject_HEAD
    PyObject *stages[STAGES]; /* the payload of its macros, or NULL */
    bool is_open;
} Incoming;

/* Names that are looked up in sessions and what belongs to them. */
enum { ABORT, ADD_RECIPIENT, BEGIN, CANONICALIZATION, CONNECTION, FIELDS, TRANSACTION,
       UPDATE_PART, USUAL, NAMES };

/* What the module knows. */
typedef struct {
    PyObject *incoming, *gathered; /* the two types */
    PyObject *names[NAMES];
} Known;

/* The octets that a packet's length counts. */
static inline size_t length_at(const octet *head) {
    return (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
}

/* --- _incoming.c --- */

/* The payload of a packet of macros; 0, or -1 with an exception set. */
int keep_macros(Incoming *self, const char *payload, size_t size);
/* The value of the macro that `given` names, None, or NULL with an exception set. */
PyObject *macro_of(const Incoming *self, PyObject *given);
/* Of stages after that of `command`, which is one. */
void forget_macros_after(Incoming *self, int command);

/* --- _usual_message.c --- */

PyObject *take_usual(PyObject *module, PyObject *const *args, Py_ssize_t given);
/* 0, or -1 with an exception set. */
int know_usual(PyObject *module, Known *known);

#endif
