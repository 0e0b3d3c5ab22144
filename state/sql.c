/* sql.c - SQLite behind sql.h. */
#include "sql.h"

#include <assert.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { STATEMENTS_MAX = 64 };

struct sql_rows {
    sqlite3_stmt *st;
    const char *text;
    sql *db;
    bool busy;
};

struct sql {
    sqlite3 *db;
    char path[4096];
    sql_rows kept[STATEMENTS_MAX];
    int n_kept, wal_pages;
    uint64_t rollbacks;
};

/* ---- errors ---- */

static pd_err code_of(int rc, int sys) {
    switch (rc & 0xff) {
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        return sys == ENOSPC || sys == EDQUOT ? PD_EFULL : PD_EIO;
    case SQLITE_FULL:
        return PD_EFULL;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return PD_EBUSY;
    case SQLITE_NOMEM:
        return PD_ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return PD_EFORMAT;
    default:
        return PD_EIO;
    }
}

static pd_err fail(const sql *db, int rc) {
    const char *said = db->db ? sqlite3_errmsg(db->db) : sqlite3_errstr(rc);
    int sys = db->db ? sqlite3_system_errno(db->db) : 0;
    pd_err e = code_of(rc, sys);
    switch (e) {
    case PD_EFULL:
        return pd_fail(e, "%s: no space left on its disk (free some; the node goes on by itself)",
                       db->path);
    case PD_EBUSY:
        return pd_fail(e, "%s is in use (is peerd already running on this folder?)", db->path);
    case PD_EFORMAT:
        return pd_fail(
            e, "%s is damaged or not a database: %s (put a backup in its place, or join again)",
            db->path, said);
    default:
        return sys ? pd_fail(e, "%s: %s (%s)", db->path, said, strerror(sys))
                   : pd_fail(e, "%s: %s", db->path, said);
    }
}

/* ---- open ---- */

/* In this order: EXCLUSIVE before anything that reads the file (auto_vacuum does) means that there
 * is no shared-memory file.  The wait is for a process that is just ending; later there is nobody
 * to wait for.
 */
static const char *const setup = "PRAGMA locking_mode = EXCLUSIVE;"
                                 "PRAGMA busy_timeout = 500;"
                                 "PRAGMA page_size = 4096;"
                                 "PRAGMA auto_vacuum = NONE;"
                                 "PRAGMA journal_mode = WAL;"
                                 "PRAGMA synchronous = FULL;"
                                 "PRAGMA wal_autocheckpoint = 0;"
                                 "PRAGMA journal_size_limit = 8388608;"
                                 "PRAGMA foreign_keys = ON;"
                                 "PRAGMA trusted_schema = OFF;"
                                 "PRAGMA cell_size_check = ON;"
                                 "PRAGMA mmap_size = 0;"
                                 "PRAGMA temp_store = MEMORY;";

static int after_commit(void *context, sqlite3 *db, const char *name, int pages) {
    (void)db, (void)name;
    ((sql *)context)->wal_pages = pages;
    return SQLITE_OK;
}

pd_err sql_open(const char *path, sql **out) {
    sql *db = calloc(1, sizeof *db);
    if (!db)
        return pd_fail(PD_ENOMEM, "no memory for the database");
    size_t n = strlen(path);
    if (n >= sizeof db->path) {
        free(db);
        return pd_fail(PD_EUSAGE, "the path of the database is too long");
    }
    memcpy(db->path, path, n + 1);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int rc = sqlite3_open_v2(path, &db->db, flags, NULL);
    pd_err e = PD_OK;
    if (rc != SQLITE_OK)
        e = fail(db, rc);
    else
        e = sql_exec(db, setup);
    if (e) {
        sql_close(db);
        return e;
    }
    sqlite3_wal_hook(db->db, after_commit, db);
    *out = db;
    return PD_OK;
}

void sql_close(sql *db) {
    if (!db)
        return;
    for (int i = 0; i < db->n_kept; i++)
        sqlite3_finalize(db->kept[i].st);
    sqlite3_close(db->db);
    free(db);
}

pd_err sql_exec(sql *db, const char *text) {
    int rc = sqlite3_exec(db->db, text, NULL, NULL, NULL);
    return rc == SQLITE_OK ? PD_OK : fail(db, rc);
}

/* ---- statements ---- */

static pd_err find(sql *db, const char *text, sql_rows **out) {
    for (int i = 0; i < db->n_kept; i++)
        if (db->kept[i].text == text) {
            *out = &db->kept[i];
            return PD_OK;
        }
    assert(db->n_kept < STATEMENTS_MAX);
    sql_rows *r = &db->kept[db->n_kept];
    int rc = sqlite3_prepare_v3(db->db, text, -1, SQLITE_PREPARE_PERSISTENT, &r->st, NULL);
    if (rc != SQLITE_OK)
        return fail(db, rc);
    r->text = text;
    r->db = db;
    db->n_kept++;
    *out = r;
    return PD_OK;
}

static int bind(sqlite3_stmt *st, const char *format, va_list ap) {
    int rc = SQLITE_OK;
    assert((int)strlen(format) == sqlite3_bind_parameter_count(st));
    for (int i = 1; rc == SQLITE_OK && format[i - 1]; i++) {
        if (format[i - 1] == 'i') {
            rc = sqlite3_bind_int64(st, i, va_arg(ap, int64_t));
        } else if (format[i - 1] == 't') {
            rc = sqlite3_bind_text(st, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
        } else {
            const void *p = va_arg(ap, const void *);
            size_t n = va_arg(ap, size_t);
            rc = n ? sqlite3_bind_blob64(st, i, p, n, SQLITE_STATIC)
                   : sqlite3_bind_zeroblob(st, i, 0);
        }
    }
    return rc;
}

/* A statement, found, bound and not yet run. */
static pd_err ready(sql *db, sql_rows **out, const char *text, const char *format, va_list ap) {
    sql_rows *r = NULL;
    pd_err e = find(db, text, &r);
    if (e)
        return e;
    assert(!r->busy);
    r->busy = true;
    int rc = bind(r->st, format, ap);
    if (rc != SQLITE_OK) {
        e = fail(db, rc);
        sql_done(r);
        return e;
    }
    *out = r;
    return PD_OK;
}

/* Not the error of a reset: it repeats the one that sqlite3_step gave. */
void sql_done(sql_rows *r) {
    sqlite3_reset(r->st);
    sqlite3_clear_bindings(r->st);
    r->busy = false;
}

pd_err sql_ask(sql *db, sql_rows **rows, const char *text, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    pd_err e = ready(db, rows, text, format, ap);
    va_end(ap);
    return e;
}

pd_err sql_next(sql_rows *r, bool *row) {
    int rc = sqlite3_step(r->st);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return fail(r->db, rc);
    *row = rc == SQLITE_ROW;
    return PD_OK;
}

int64_t sql_int(sql_rows *r, int column) {
    return sqlite3_column_int64(r->st, column);
}

const uint8_t *sql_blob(sql_rows *r, int column, size_t *n) {
    const uint8_t *p = sqlite3_column_blob(r->st, column);
    *n = p ? (size_t)sqlite3_column_bytes(r->st, column) : 0;
    return p;
}

const char *sql_text(sql_rows *r, int column) {
    const char *s = (const char *)sqlite3_column_text(r->st, column);
    return s ? s : "";
}

pd_err sql_number(sql *db, int64_t *v, bool *found, const char *text, const char *format, ...) {
    sql_rows *r = NULL;
    bool row = false;
    va_list ap;
    va_start(ap, format);
    pd_err e = ready(db, &r, text, format, ap);
    va_end(ap);
    if (e)
        return e;
    e = sql_next(r, &row);
    if (!e && row)
        *v = sql_int(r, 0);
    sql_done(r);
    assert(e || row || found);
    if (found)
        *found = row;
    return e;
}

/* ---- transactions ---- */

pd_err sql_begin(sql *db) {
    return sql_in_transaction(db) ? PD_OK : sql_exec(db, "BEGIN IMMEDIATE");
}

bool sql_in_transaction(const sql *db) {
    return !sqlite3_get_autocommit(db->db);
}

uint64_t sql_rollbacks(const sql *db) {
    return db->rollbacks;
}

int64_t sql_changed(const sql *db) {
    return sqlite3_changes64(db->db);
}

/* SQLite has rolled back by itself after some errors; then this finds nothing to do but count. */
void sql_rollback(sql *db) {
    db->rollbacks++;
    if (sql_in_transaction(db))
        sqlite3_exec(db->db, "ROLLBACK", NULL, NULL, NULL);
}

pd_err sql_write(sql *db, const char *text, const char *format, ...) {
    pd_err e = sql_begin(db);
    if (!e) {
        sql_rows *r = NULL;
        va_list ap;
        va_start(ap, format);
        e = ready(db, &r, text, format, ap);
        va_end(ap);
        if (!e) {
            bool row;
            e = sql_next(r, &row);
            sql_done(r);
        }
    }
    if (e)
        sql_rollback(db);
    return e;
}

pd_err sql_commit(sql *db) {
    if (!sql_in_transaction(db))
        return PD_OK;
    pd_err e = sql_exec(db, "COMMIT");
    if (e)
        sql_rollback(db);
    return e;
}

/* ---- the write-ahead log, copies ---- */

int sql_wal_pages(const sql *db) {
    return db->wal_pages;
}

pd_err sql_checkpoint(sql *db) {
    int rc = sqlite3_wal_checkpoint_v2(db->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc != SQLITE_OK)
        return fail(db, rc);
    db->wal_pages = 0;
    return PD_OK;
}

pd_err sql_copy(sql *db, const char *path, const char *without) {
    sql *copy = NULL;
    sql_rows *r = NULL;
    pd_err e = sql_ask(db, &r, "VACUUM INTO ?", "t", path);
    if (e)
        return e;
    bool row;
    e = sql_next(r, &row);
    sql_done(r);
    if (!e)
        e = sql_open(path, &copy);
    if (!e)
        e = sql_write(copy, "DELETE FROM meta WHERE k = ?", "t", without);
    if (!e)
        e = sql_commit(copy);
    if (!e)
        e = sql_checkpoint(copy);
    sql_close(copy);
    return e;
}

pd_err sql_readable(sql *db) {
    enum { STEP = 65536 };
    sqlite3_file *f = NULL;
    sqlite3_int64 size = 0;
    char *p = malloc(STEP);
    int rc = p ? sqlite3_file_control(db->db, "main", SQLITE_FCNTL_FILE_POINTER, &f) : SQLITE_NOMEM;
    if (!rc)
        rc = f->pMethods->xFileSize(f, &size);
    for (sqlite3_int64 at = 0; !rc && at < size; at += STEP)
        rc = f->pMethods->xRead(f, p, (int)(size - at < STEP ? size - at : STEP), at);
    free(p);
    return rc ? pd_fail(code_of(rc, 0), "%s: its disk gives an error where it is read", db->path)
              : PD_OK;
}
