/* A batch for SQLite: what _loading.c says to a `Gathering`, record by record.
 *
 * Call `begin_record`, then write its rows behind those in `facts` and add its roles and terms, then
 * `end_record`; or `forget_record`, after which nothing of it is there.  Outcomes as in _growing.h.
 */

#ifndef CARBONSEAL_GATHERING_H
#define CARBONSEAL_GATHERING_H

#include "_growing.h"

#define KEY 16 /* octets of a record's key on SQLite */

enum { G_MESSAGES, G_SECTIONS, GATHERED_FACTS };
enum { G_PARTICIPANTS, G_DOMAINS, G_TERMS, GATHERED_INDEXES };

typedef struct {
    uint64_t id; /* its highest bit turned, so that they sort like numbers with a sign */
    uint32_t record;
    int32_t roles;
} Entry;

typedef struct {
    Entry *entries;
    size_t count, room;
    size_t begun; /* how many there were before the record that was begun */
} Entries;

typedef struct {
    PyObject_HEAD
    Buffer facts[GATHERED_FACTS];   /* packs, see _many_rows.h; empty ones are not begun */
    size_t begun[GATHERED_FACTS];   /* their sizes before the record that was begun */
    PyObject *done[GATHERED_FACTS]; /* packs that are full */
    Entries indexes[GATHERED_INDEXES];
    octet (*keys)[KEY];
    size_t records, room;
    bool is_given;
} Gathering;

/* One extension has both files: nobody else sees these. */
#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

extern PyType_Spec gathering_spec;

/* Take the key of one more record; UNUSUAL where it is none, or there are too many. */
Outcome begin_record(Gathering *self, PyObject *key);
/* UNUSUAL where this record has the id already: two texts can be the same octets. */
Outcome add_role(Gathering *self, int which, long long id, long long roles);
Outcome add_term(Gathering *self, long long id);
void end_record(Gathering *self);
void forget_record(Gathering *self);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
