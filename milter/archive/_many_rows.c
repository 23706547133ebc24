/* Many rows for one statement of SQLite, in one piece of memory.
 *
 * To SQLite this is an extension with a table `carbonseal_rows(pack)`, whose rows are those of the
 * octets that it is given: `INSERT ... SELECT c0, c1 FROM carbonseal_rows(?)` binds one value where
 * it would bind two for each row.  What SQLite and its driver do for each bound value, locks and a
 * copy of its own among it, takes longer than putting it into a tree.
 *
 * _many_rows.h says what a pack looks like.  What is none is an error of SQLite's, and is read to
 * its end and no further.  To Python this is a module that makes packs of rows; the gathering of
 * _loading.c makes them as well.  tests/archive/test_many_rows.py tries both halves.
 *
 * Bounds: time and memory are linear in the pack, or the rows.
 */

#include "_many_rows.h"
#if __has_include(<sqlite3ext.h>)
#include <sqlite3ext.h>
#define CAN_READ 1
#else
#define CAN_READ 0
#endif

/* ---- Reading them ---------------------------------------------------------------------------- */

#if CAN_READ
SQLITE_EXTENSION_INIT1

typedef struct {
    octet tag;
    union {
        sqlite3_int64 number;
        struct {
            const char *from;
            int size;
        } many;
    } is;
} Value;

typedef struct {
    sqlite3_vtab_cursor base;
    octet *octets; /* our own copy of the pack */
    size_t size, at;
    int columns;
    bool is_done;
    sqlite3_int64 row;
    Value values[PACK_COLUMNS];
} Cursor;

static int complain(sqlite3_vtab *table, const char *what) {
    sqlite3_free(table->zErrMsg);
    table->zErrMsg = sqlite3_mprintf("carbonseal_rows: %s", what);
    return SQLITE_ERROR;
}

static int connect_table(sqlite3 *connection, void *data, int count, const char *const *words,
                         sqlite3_vtab **made, char **complaint) {
    (void)data, (void)count, (void)words, (void)complaint;
    char text[16 * (PACK_COLUMNS + 2)] = "CREATE TABLE x(";
    for (int place = 0; place < PACK_COLUMNS; place++)
        sqlite3_snprintf(16, text + strlen(text), "c%d,", place);
    strcat(text, "pack HIDDEN)");
    int fault = sqlite3_declare_vtab(connection, text);
    if (fault != SQLITE_OK) return fault;
#ifdef SQLITE_VTAB_DIRECTONLY
    sqlite3_vtab_config(connection, SQLITE_VTAB_DIRECTONLY); /* not for views and triggers */
#endif
    *made = sqlite3_malloc(sizeof **made);
    if (!*made) return SQLITE_NOMEM;
    memset(*made, 0, sizeof **made);
    return SQLITE_OK;
}

static int disconnect_table(sqlite3_vtab *table) {
    sqlite3_free(table);
    return SQLITE_OK;
}

static int plan(sqlite3_vtab *table, sqlite3_index_info *info) {
    for (int number = 0; number < info->nConstraint; number++) {
        if (info->aConstraint[number].iColumn != PACK_COLUMNS
            || info->aConstraint[number].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[number].usable) return SQLITE_CONSTRAINT;
        info->aConstraintUsage[number].argvIndex = 1;
        info->aConstraintUsage[number].omit = 1;
        info->estimatedCost = 1000;
        info->estimatedRows = 1000;
        return SQLITE_OK;
    }
    return complain(table, "give it a pack");
}

static int open_cursor(sqlite3_vtab *table, sqlite3_vtab_cursor **made) {
    (void)table;
    Cursor *self = sqlite3_malloc(sizeof *self);
    if (!self) return SQLITE_NOMEM;
    memset(self, 0, sizeof *self);
    *made = &self->base;
    return SQLITE_OK;
}

static int close_cursor(sqlite3_vtab_cursor *cursor) {
    sqlite3_free(((Cursor *)cursor)->octets);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

static bool read_octets(Cursor *self, void *to, size_t size) {
    if (self->size - self->at < size) return false;
    memcpy(to, self->octets + self->at, size);
    self->at += size;
    return true;
}

static bool read_value(Cursor *self, Value *value) {
    uint32_t length;
    if (!read_octets(self, &value->tag, 1) || value->tag > TAG_OCTETS) return false;
    if (value->tag == TAG_NOTHING) return true;
    if (value->tag == TAG_NUMBER)
        return read_octets(self, &value->is.number, sizeof value->is.number);
    if (!read_octets(self, &length, sizeof length) || length > LARGEST_VALUE
        || self->size - self->at < length)
        return false;
    value->is.many.from = (const char *)self->octets + self->at;
    value->is.many.size = (int)length;
    self->at += length;
    return true;
}

static int next_row(sqlite3_vtab_cursor *cursor) {
    Cursor *self = (Cursor *)cursor;
    self->row++;
    if (self->at == self->size) {
        self->is_done = true;
        return SQLITE_OK;
    }
    for (int place = 0; place < self->columns; place++)
        if (!read_value(self, &self->values[place])) return complain(cursor->pVtab, "no pack");
    return SQLITE_OK;
}

static int begin_rows(sqlite3_vtab_cursor *cursor, int index, const char *name, int count,
                      sqlite3_value **given) {
    (void)index, (void)name;
    Cursor *self = (Cursor *)cursor;
    /* Values that were shown point into the pack, and may be held for as long as the statement. */
    if (self->octets) return complain(cursor->pVtab, "a statement reads a pack once");
    self->at = 1;
    if (count != 1 || sqlite3_value_type(given[0]) != SQLITE_BLOB)
        return complain(cursor->pVtab, "a pack is octets");
    const void *octets = sqlite3_value_blob(given[0]);
    self->size = (size_t)sqlite3_value_bytes(given[0]);
    if (!octets || !self->size) return complain(cursor->pVtab, "a pack is not empty");
    if (!(self->octets = sqlite3_malloc64(self->size))) return SQLITE_NOMEM;
    memcpy(self->octets, octets, self->size);
    self->columns = self->octets[0];
    if (!self->columns || self->columns > PACK_COLUMNS) return complain(cursor->pVtab, "no pack");
    return next_row(cursor);
}

static int is_behind(sqlite3_vtab_cursor *cursor) { return ((Cursor *)cursor)->is_done; }

static int column_of(sqlite3_vtab_cursor *cursor, sqlite3_context *to, int place) {
    const Cursor *self = (const Cursor *)cursor;
    if (place >= self->columns) return SQLITE_OK; /* null */
    const Value *value = &self->values[place];
    switch (value->tag) {
    case TAG_NUMBER: sqlite3_result_int64(to, value->is.number); break;
    /* They stay where they are for as long as the statement runs. */
    case TAG_TEXT:
        sqlite3_result_text(to, value->is.many.from, value->is.many.size, SQLITE_STATIC);
        break;
    case TAG_OCTETS:
        sqlite3_result_blob(to, value->is.many.from, value->is.many.size, SQLITE_STATIC);
        break;
    default: break;
    }
    return SQLITE_OK;
}

static int rowid_of(sqlite3_vtab_cursor *cursor, sqlite_int64 *row) {
    *row = ((Cursor *)cursor)->row;
    return SQLITE_OK;
}

/* Without xCreate it is no table that could be made: its name alone is there. */
static const sqlite3_module table_of_rows = {
    .xConnect = connect_table, .xBestIndex = plan,    .xDisconnect = disconnect_table,
    .xOpen = open_cursor,      .xClose = close_cursor, .xFilter = begin_rows,
    .xNext = next_row,         .xEof = is_behind,      .xColumn = column_of,
    .xRowid = rowid_of,
};

#ifdef __GNUC__
__attribute__((visibility("default")))
#endif
int sqlite3_extension_init(sqlite3 *connection, char **complaint, const sqlite3_api_routines *api) {
    (void)complaint;
    SQLITE_EXTENSION_INIT2(api)
    return sqlite3_create_module(connection, "carbonseal_rows", &table_of_rows, NULL);
}
#endif

/* ---- Making packs ---------------------------------------------------------------------------- */

static Outcome put_row(Buffer *pack, PyObject *row, Py_ssize_t columns) {
    if (!PyTuple_Check(row) || PyTuple_Size(row) != columns) return UNUSUAL;
    for (Py_ssize_t place = 0; place < columns; place++)
        TRY(put_value(pack, PyTuple_GetItem(row, place)));
    return DONE;
}

static Outcome put_rows(Buffer *pack, PyObject *rows, Py_ssize_t *at) {
    PyObject *first = PyList_GetItem(rows, *at);
    Py_ssize_t columns = PyTuple_Check(first) ? PyTuple_Size(first) : 0;
    TRY(begin_pack(pack, columns));
    while (*at < PyList_Size(rows) && pack->size < PACK_LARGE)
        TRY(put_row(pack, PyList_GetItem(rows, (*at)++), columns));
    return DONE;
}

static PyObject *pack_method(PyObject *Py_UNUSED(module), PyObject *rows) {
    if (!PyList_Check(rows)) {
        PyErr_SetString(PyExc_TypeError, "a list of rows expected");
        return NULL;
    }
    PyObject *made = PyList_New(0);
    Buffer pack = {0};
    Outcome outcome = made ? DONE : ERROR;
    for (Py_ssize_t at = 0; outcome == DONE && at < PyList_Size(rows);) {
        outcome = put_rows(&pack, rows, &at);
        if (outcome == DONE) outcome = append_pack(made, &pack);
    }
    release(&pack);
    if (outcome == DONE) return made;
    Py_XDECREF(made);
    if (outcome == ERROR) return NULL;
    Py_RETURN_NONE;
}

/* ---- The module ------------------------------------------------------------------------------ */

static int fill_module(PyObject *module) {
    return PyModule_AddIntConstant(module, "CAN_READ", CAN_READ);
}

static PyMethodDef methods[] = {
    {"pack", pack_method, METH_O,
     "Packs of a list of rows; None where the driver has to look at a value."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot parts[] = {{Py_mod_exec, fill_module}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_many_rows", .m_size = 0, .m_methods = methods,
    .m_slots = parts,
};

PyMODINIT_FUNC PyInit__many_rows(void) { return PyModuleDef_Init(&definition); }
