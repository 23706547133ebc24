/* A batch for SQLite: rows of many records in packs (see _many_rows.h), a table each.
 *
 * Rows of those tables that are indexes come out of it in the order of their ids, and of one id as
 * they were added, as the sorting in loader.py has them.  A part of the extension _loading.
 *
 * Bounds: time and memory are linear in what is added; for the roles of one record, which _loading.c
 * limits, time is their square.
 */

#include "_gathering.h"
#include "_many_rows.h"

#define MOST_RECORDS (1u << 24) /* in one gathering */
#define TURNED (1ULL << 63)

/* ---- Records --------------------------------------------------------------------------------- */

/* Packs are full when a record ends in them: its rows stay together until it is whole. */
static Outcome put_full_away(Gathering *self) {
    for (size_t which = 0; which < GATHERED_FACTS; which++)
        if (self->facts[which].size > PACK_LARGE) {
            TRY(append_pack(self->done[which], &self->facts[which]));
            self->facts[which].size = 0;
        }
    return DONE;
}

Outcome begin_record(Gathering *self, PyObject *key) {
    TRY(put_full_away(self));
    for (size_t which = 0; which < GATHERED_FACTS; which++)
        self->begun[which] = self->facts[which].size;
    for (size_t which = 0; which < GATHERED_INDEXES; which++)
        self->indexes[which].begun = self->indexes[which].count;
    if (!PyBytes_Check(key) || PyBytes_Size(key) != KEY || self->records == MOST_RECORDS)
        return UNUSUAL;
    if (self->records == self->room) {
        octet(*keys)[KEY] = grown(self->keys, &self->room, sizeof *keys);
        if (!keys) return ERROR;
        self->keys = keys;
    }
    memcpy(self->keys[self->records], PyBytes_AsString(key), KEY);
    return DONE;
}

static Outcome add_entry(Gathering *self, int which, long long id, long long roles) {
    Entries *to = &self->indexes[which];
    if (roles < INT32_MIN || roles > INT32_MAX) return UNUSUAL;
    if (to->count == to->room) {
        Entry *entries = grown(to->entries, &to->room, sizeof *entries);
        if (!entries) return ERROR;
        to->entries = entries;
    }
    to->entries[to->count++] =
        (Entry){(uint64_t)id ^ TURNED, (uint32_t)self->records, (int32_t)roles};
    return DONE;
}

Outcome add_role(Gathering *self, int which, long long id, long long roles) {
    const Entries *to = &self->indexes[which];
    for (size_t before = to->begun; before < to->count; before++)
        if (to->entries[before].id == ((uint64_t)id ^ TURNED)) return UNUSUAL;
    return add_entry(self, which, id, roles);
}

Outcome add_term(Gathering *self, long long id) { return add_entry(self, G_TERMS, id, 0); }

void end_record(Gathering *self) { self->records++; }

void forget_record(Gathering *self) {
    for (size_t which = 0; which < GATHERED_FACTS; which++)
        self->facts[which].size = self->begun[which];
    for (size_t which = 0; which < GATHERED_INDEXES; which++)
        self->indexes[which].count = self->indexes[which].begun;
}

/* ---- Indexes --------------------------------------------------------------------------------- */

/* Sort by id, octet by octet from the lowest: nobody's choice of words makes that slower. */
static bool sort_entries(Entries *some) {
    Entry *from = some->entries, *to = malloc((some->count + 1) * sizeof *to), *spare = to;
    if (!to) {
        PyErr_NoMemory();
        return false;
    }
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t starts[256] = {0}, next = 0;
        for (size_t at = 0; at < some->count; at++) starts[from[at].id >> shift & 255]++;
        for (size_t one = 0; one < 256; one++) {
            size_t size = starts[one];
            starts[one] = next;
            next += size;
        }
        for (size_t at = 0; at < some->count; at++)
            to[starts[from[at].id >> shift & 255]++] = from[at];
        Entry *swapped = from;
        from = to;
        to = swapped;
    }
    free(spare); /* after an even number of turns all of it is where it was */
    return true;
}

static Outcome put_entry(Buffer *pack, const Entry *entry, const octet *key, bool has_roles) {
    TRY(put_number(pack, (int64_t)(entry->id ^ TURNED)));
    TRY(put_many(pack, TAG_OCTETS, key, KEY));
    return has_roles ? put_number(pack, entry->roles) : DONE;
}

static Outcome put_index(Gathering *self, int which, PyObject *made) {
    Entries *some = &self->indexes[which];
    Buffer pack = {0};
    bool has_roles = which != G_TERMS;
    Outcome outcome = sort_entries(some) ? DONE : ERROR;
    for (size_t at = 0; outcome == DONE && at < some->count;) {
        outcome = begin_pack(&pack, has_roles ? 3 : 2);
        for (; outcome == DONE && at < some->count && pack.size < PACK_LARGE; at++)
            outcome = put_entry(&pack, &some->entries[at], self->keys[some->entries[at].record],
                                has_roles);
        if (outcome == DONE) outcome = append_pack(made, &pack);
    }
    release(&pack);
    return outcome;
}

/* ---- The type -------------------------------------------------------------------------------- */

static PyObject *packs_method(PyObject *object, PyObject *Py_UNUSED(none)) {
    Gathering *self = (Gathering *)object;
    if (self->is_given) {
        PyErr_SetString(PyExc_ValueError, "the packs were given already");
        return NULL;
    }
    self->is_given = true;
    PyObject *made = PyTuple_New(GATHERED_FACTS + GATHERED_INDEXES);
    Outcome outcome = made ? DONE : ERROR;
    for (int which = 0; outcome == DONE && which < GATHERED_FACTS; which++) {
        if (self->facts[which].size) outcome = append_pack(self->done[which], &self->facts[which]);
        self->facts[which].size = 0;
        Py_INCREF(self->done[which]);
        if (PyTuple_SetItem(made, which, self->done[which]) < 0) outcome = ERROR;
    }
    for (int which = 0; outcome == DONE && which < GATHERED_INDEXES; which++) {
        PyObject *packs = PyList_New(0);
        outcome = packs ? put_index(self, which, packs) : ERROR;
        if (packs && PyTuple_SetItem(made, GATHERED_FACTS + which, packs) < 0) outcome = ERROR;
    }
    if (outcome == DONE) return made;
    Py_XDECREF(made);
    return NULL;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *words[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, named, "", words)) return NULL;
    Gathering *self = new_object(type);
    for (size_t which = 0; self && which < GATHERED_FACTS; which++)
        if (!(self->done[which] = PyList_New(0))) {
            Py_DECREF((PyObject *)self);
            return NULL;
        }
    return (PyObject *)self;
}

static void deallocate(PyObject *object) {
    Gathering *self = (Gathering *)object;
    for (size_t which = 0; which < GATHERED_FACTS; which++) {
        release(&self->facts[which]);
        Py_XDECREF(self->done[which]);
    }
    for (size_t which = 0; which < GATHERED_INDEXES; which++) free(self->indexes[which].entries);
    free(self->keys);
    free_object(object);
}

static PyMethodDef methods[] = {
    {"packs", packs_method, METH_NOARGS,
     "Packs by table: messages, header sections, participants, domains, terms.  Once."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Rows of a batch, packed for SQLite."},
    {Py_tp_new, new},
    {Py_tp_dealloc, deallocate},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec gathering_spec = {
    .name = "carbonseal.milter.archive._loading.Gathering",
    .basicsize = sizeof(Gathering),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
