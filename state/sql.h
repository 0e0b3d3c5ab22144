/* sql.h - the one door to SQLite: a connection, statements kept by their text, errors as ours.
 *
 * A statement's text is a string literal: it is prepared at its first use and found again by its
 * address.  Arguments follow a format: i int64_t, b (const void *, size_t) a blob, t (const char *)
 * a text.
 */
#ifndef PD_SQL_H
#define PD_SQL_H

#include "peerd/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sql sql;
typedef struct sql_rows sql_rows; /* a running query */

/* An existing file, which may be empty.  Errors: PD_EBUSY, PD_EIO, PD_EFORMAT (not a database),
 * PD_ENOMEM. */
PD_CHECKED pd_err sql_open(const char *path, sql **out);
void sql_close(sql *db);

/* Run statements that return nothing, outside the cache. */
PD_CHECKED pd_err sql_exec(sql *db, const char *text);

/* Write: begins a transaction where none is open; on any error the transaction is rolled back. */
PD_CHECKED pd_err sql_write(sql *db, const char *text, const char *format, ...);
int64_t sql_changed(const sql *db); /* rows of the last write */
PD_CHECKED pd_err sql_begin(sql *db);
PD_CHECKED pd_err sql_commit(sql *db);
void sql_rollback(sql *db);
bool sql_in_transaction(const sql *db);
uint64_t sql_rollbacks(const sql *db); /* how often work was undone, for caches */

/* Ask.  Every successful sql_ask is followed by sql_done, also after an error of sql_next. */
PD_CHECKED pd_err sql_ask(sql *db, sql_rows **rows, const char *text, const char *format, ...);
PD_CHECKED pd_err sql_next(sql_rows *rows, bool *row);
int64_t sql_int(sql_rows *rows, int column);
const uint8_t *sql_blob(sql_rows *rows, int column, size_t *n); /* good until the next row */
const char *sql_text(sql_rows *rows, int column);
void sql_done(sql_rows *rows);
/* One row of one number; *found may be NULL where a row is sure to come. */
PD_CHECKED pd_err sql_number(sql *db, int64_t *v, bool *found, const char *text, const char *format,
                             ...);

/* Pages in the write-ahead log after the last commit; move them into the database and cut the log
 * to nothing. */
int sql_wal_pages(const sql *db);
PD_CHECKED pd_err sql_checkpoint(sql *db);
/* Can all of the database's file be read?  Errors: PD_EIO, PD_ENOMEM. */
PD_CHECKED pd_err sql_readable(sql *db);
/* Copy the whole database to `path` without the meta row `without`. */
PD_CHECKED pd_err sql_copy(sql *db, const char *path, const char *without);

#endif
