/* store.c - the database of a node: open, instance token, commit, upkeep; see peerd/store.h. */
#include "store.h"
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "schema.h"

#define BALLAST_BYTES (8 << 20)
enum {
    APPLICATION = 0x70656572, /* "peer" */
    SCHEMA_VERSION = 2,
    WAL_PAGES_MAX = 1024, /* 4 MiB */
    UPKEEP_MS = 60000,
};

/* ---- ballast ---- */

static void ballast_path(const pd_store *s, char out[4096 + 16]) {
    snprintf(out, 4096 + 16, "%s/ballast", s->dir);
}

static void drop_ballast(const pd_store *s) {
    char path[4096 + 16];
    ballast_path(s, path);
    if (unlink(path) == 0)
        pd_warn("the disk of %s is full: gave up 8 MiB held back for this", s->dir);
}

/* Only where twice as much is free: holding back what the database needs would be the wrong way
 * round. */
static void make_ballast(const pd_store *s) {
    char path[4096 + 16];
    struct statvfs disk;
    ballast_path(s, path);
    if (pd_file_exists(path) || statvfs(s->dir, &disk) != 0 ||
        (uint64_t)disk.f_bavail * disk.f_frsize < 2 * (uint64_t)BALLAST_BYTES)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    bool whole = posix_fallocate(fd, 0, BALLAST_BYTES) == 0;
    close(fd);
    if (!whole)
        unlink(path);
}

/* ---- transactions ---- */

pd_err store_wrote(pd_store *s, pd_err e, size_t bytes) {
    if (!e) {
        s->pending += bytes;
        return PD_OK;
    }
    s->pending = 0;
    if (e == PD_EFULL)
        drop_ballast(s);
    return e;
}

pd_err pd_store_commit(pd_store *s) {
    pd_err e = store_wrote(s, sql_commit(s->db), 0);
    if (!e)
        s->pending = 0;
    return e;
}

void pd_store_rollback(pd_store *s) {
    sql_rollback(s->db);
    s->pending = 0;
}

size_t pd_store_pending(const pd_store *s) {
    return s->pending;
}

/* ---- open ---- */

static pd_err make_schema(pd_store *s, const uint8_t run[32]) {
    char head[128];
    snprintf(head, sizeof head, "PRAGMA application_id = %d; PRAGMA user_version = %d;",
             APPLICATION, SCHEMA_VERSION);
    pd_err e = sql_begin(s->db);
    if (!e)
        e = sql_exec(s->db, schema);
    if (!e)
        e = sql_exec(s->db, head);
    if (!e)
        e = sql_write(s->db, "INSERT INTO meta VALUES ('run', ?), ('instance', zeroblob(32))", "b",
                      run, (size_t)32);
    if (!e)
        e = sql_commit(s->db);
    if (e)
        sql_rollback(s->db);
    return e;
}

/* What the write-ahead log holds may have been read from memory alone: the process before may have
 * ended on a flush that failed, and no later flush of the log would save it (Linux forgets that the
 * pages are not on the disk).  Written into the database it is safe, before anything is built on
 * it. A disk too full for that must not keep a node from starting.
 */
static pd_err save_log(pd_store *s) {
    pd_err e = sql_checkpoint(s->db);
    return e == PD_EFULL ? PD_OK : e;
}

/* SQLite's own check; *whole, or what is wrong in one line. */
static pd_err ask_whole(pd_store *s, bool *whole, char why[128]) {
    sql_rows *r;
    bool row;
    pd_err e = sql_ask(s->db, &r, "PRAGMA quick_check(1)", "");
    if (e)
        return e;
    e = sql_next(r, &row);
    if (!e) {
        const char *said = row ? sql_text(r, 0) : "no answer", *second = strchr(said, '\n');
        *whole = row && strcmp(said, "ok") == 0;
        said = second ? second + 1 : said; /* the first line says which database: there is one */
        snprintf(why, 128, "%.*s", (int)strcspn(said, "\n"), said);
    }
    sql_done(r);
    return e;
}

/* Asked twice, and the file read: to the check, a read that fails is damage. */
static pd_err check_whole(pd_store *s) {
    bool whole = false;
    char why[128];
    pd_err e = ask_whole(s, &whole, why);
    if (!e && !whole)
        e = ask_whole(s, &whole, why);
    if (!e && !whole)
        e = sql_readable(s->db);
    if (!e && !whole)
        e = pd_fail(PD_EFORMAT, "%s is damaged: %s (put a backup in its place, or join again)",
                    s->path, why);
    return e;
}

static pd_err check_run(pd_store *s, const uint8_t run[32]) {
    uint8_t *held;
    size_t n;
    pd_err e = pd_store_meta_get(s, "run", &held, &n);
    if (e)
        return e == PD_ENOENT ? pd_fail(PD_EFORMAT, "%s names no run", s->path) : e;
    if (n != 32) {
        e = pd_fail(PD_EFORMAT, "%s names no run", s->path);
    } else if (run && memcmp(held, run, 32) != 0) {
        char ours[17], asked[17];
        pd_hex(held, 8, ours);
        pd_hex(run, 8, asked);
        e = pd_fail(PD_EMISMATCH, "%s belongs to run %s, not to %s (use another folder)", s->path,
                    ours, asked);
    } else {
        memcpy(s->run, held, 32);
    }
    free(held);
    return e;
}

/* What an older peerd wrote, as this one would have; all of it or nothing. */
static pd_err bring_up(pd_store *s) {
    pd_err e = sql_begin(s->db);
    if (!e)
        e = sql_exec(s->db, "ALTER TABLE log ADD COLUMN mark BLOB"
                            " CHECK (mark IS NULL OR length(mark) = 32);"
                            "PRAGMA user_version = 2;");
    if (!e)
        e = sql_commit(s->db);
    if (e)
        sql_rollback(s->db);
    return e;
}

static pd_err check_version(pd_store *s, bool create, const uint8_t run[32]) {
    int64_t application = 0, version = 0, tables = 0;
    pd_err e = sql_number(s->db, &application, NULL, "PRAGMA application_id", "");
    if (!e)
        e = sql_number(s->db, &version, NULL, "PRAGMA user_version", "");
    if (!e)
        e = sql_number(s->db, &tables, NULL, "SELECT count(*) FROM sqlite_schema", "");
    if (e)
        return e;
    if (tables == 0) /* new, or its making was cut off */
        return create ? make_schema(s, run) : pd_fail(PD_ENOENT, "%s is empty", s->path);
    if (application != APPLICATION)
        return pd_fail(PD_EFORMAT, "%s is some other program's database", s->path);
    if (version > SCHEMA_VERSION)
        return pd_fail(PD_EUNSUPPORTED,
                       "%s was written by a newer peerd (format %lld, this one knows %d)", s->path,
                       (long long)version, SCHEMA_VERSION);
    e = check_whole(s);
    return e || version == SCHEMA_VERSION ? e : bring_up(s);
}

/* ---- instance ----
 *
 * A random token lies in the database and in a file beside it, new at each start.  A database put
 * back from elsewhere has another one.  The database keeps the token before, too, as a crash may
 * fall between the two writes.  The file also says whether the node was closed: if it was not,
 * there must be a write-ahead log, else commits have been lost with it.
 */
static pd_err write_instance(const pd_store *s, bool closed) {
    char path[4096 + 16], text[48];
    snprintf(path, sizeof path, "%s/instance", s->dir);
    pd_hex(s->instance, 16, text);
    strcpy(text + 32, closed ? " closed\n" : " open\n");
    return pd_file_replace(path, text, strlen(text), 0600);
}

/* false where there is no such file, or it is not ours. */
static bool read_instance(const pd_store *s, uint8_t token[16], bool *closed) {
    char path[4096 + 16];
    uint8_t *text;
    size_t n;
    snprintf(path, sizeof path, "%s/instance", s->dir);
    if (!pd_file_exists(path) || pd_file_read(path, 64, &text, &n))
        return false;
    bool ok = n > 33 && text[32] == ' ';
    if (ok) {
        *closed = strcmp((char *)text + 33, "closed\n") == 0;
        text[32] = 0;
        ok = strlen((char *)text) == 32 && pd_unhex((char *)text, token, 16);
    }
    free(text);
    return ok;
}

static pd_err start_instance(pd_store *s, bool log_there) {
    static const uint8_t never[32]; /* as the schema begins; a backup has no row at all */
    uint8_t *held = NULL, beside[16], tokens[32] = {0};
    size_t n = 0;
    bool closed = false, found = read_instance(s, beside, &closed);
    pd_err e = pd_store_meta_get(s, "instance", &held, &n);
    if (e && e != PD_ENOENT)
        return e;
    bool whole = !e && n == 32, fresh = whole && !found && memcmp(held, never, 32) == 0;
    bool known =
        whole && found && (memcmp(held, beside, 16) == 0 || memcmp(held + 16, beside, 16) == 0);
    free(held);
    s->restored = !fresh && (!known || (!closed && !log_there));
    if (found)
        memcpy(tokens, beside, 16);
    pd_random(s->instance, 16);
    memcpy(tokens + 16, s->instance, 16);
    e = sql_write(s->db, "INSERT OR REPLACE INTO meta VALUES ('instance', ?)", "b", tokens,
                  sizeof tokens);
    if (!e)
        e = sql_commit(s->db);
    return e ? e : write_instance(s, false);
}

/* For its owner alone, as it holds the secrets of tickets; SQLite gives its other files the same
 * mode. */
static pd_err make_file(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return pd_fail(errno == ENOSPC ? PD_EFULL : PD_EIO, "%s: %s", path, strerror(errno));
    close(fd);
    return PD_OK;
}

/* An empty file for a copy: SQLite would let every user read it. */
static pd_err make_copy(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return pd_fail(PD_EEXIST, "%s is there already (name a new file)", path);
    if (fd < 0)
        return pd_fail(errno == ENOSPC ? PD_EFULL : PD_EIO, "%s: %s", path, strerror(errno));
    close(fd);
    return PD_OK;
}

static pd_err start(pd_store *s, bool create, const uint8_t run[32], bool log_there) {
    pd_err e = create ? make_file(s->path) : PD_OK;
    if (!e)
        e = sql_open(s->path, &s->db);
    if (!e)
        e = save_log(s);
    if (!e)
        e = check_version(s, create, run);
    if (!e)
        e = check_run(s, run);
    if (!e)
        e = start_instance(s, log_there);
    if (e) {
        sql_close(s->db);
        s->db = NULL;
    }
    return e;
}

pd_err pd_store_open(const char *dir, bool create, const uint8_t run[32], pd_store **out) {
    assert(run || !create);
    pd_store *s = calloc(1, sizeof *s);
    if (!s)
        return pd_fail(PD_ENOMEM, "no memory for the store");
    pd_err e = pd_path_join(s->path, sizeof s->path, dir, "ledger.db");
    if (!e && !create && access(s->path, F_OK) != 0 && errno == ENOENT)
        e = pd_fail(PD_ENOENT, "%s holds no node (make one: peerd init, or peerd join)", dir);
    if (!e) {
        char log[4096 + 16];
        memcpy(s->dir, dir, strlen(dir) + 1);
        snprintf(log, sizeof log, "%s-wal", s->path);
        bool log_there = pd_file_exists(log);
        e = start(s, create, run, log_there);
        if (e == PD_EFULL) { /* a node must start on a full disk: it still relays */
            drop_ballast(s);
            e = start(s, create, run, log_there);
        }
    }
    if (e) {
        free(s);
        return e;
    }
    make_ballast(s);
    *out = s;
    return PD_OK;
}

void pd_store_close(pd_store *s) {
    if (!s)
        return;
    sql_rollback(s->db);
    if (write_instance(s, true))
        pd_warn("%s", pd_fail_text()); /* costs a longer listening at the next start, no more */
    sql_close(s->db); /* moves the write-ahead log into the database and deletes it */
    free(s->followed);
    free(s);
}

void pd_store_run(const pd_store *s, uint8_t run[32]) {
    memcpy(run, s->run, 32);
}

bool pd_store_restored(const pd_store *s) {
    return s->restored;
}

/* ---- upkeep ---- */

pd_err pd_store_maintain(pd_store *s, uint64_t now_ms) {
    if (sql_in_transaction(s->db))
        return PD_OK;
    if (s->ballast_ms == 0 || now_ms - s->ballast_ms >= UPKEEP_MS) {
        if (s->ballast_ms != 0)
            make_ballast(s);
        s->ballast_ms = now_ms;
    }
    if (s->checkpoint_ms == 0)
        s->checkpoint_ms = now_ms;
    int pages = sql_wal_pages(s->db);
    if (pages == 0 || (pages <= WAL_PAGES_MAX && now_ms - s->checkpoint_ms < UPKEEP_MS))
        return PD_OK;
    s->checkpoint_ms = now_ms;
    return store_wrote(s, sql_checkpoint(s->db), 0);
}

pd_err pd_store_backup(pd_store *s, const char *path) {
    pd_err e = pd_store_commit(s);
    if (!e)
        e = make_copy(path);
    if (e)
        return e;
    e = sql_copy(s->db, path, "instance");
    if (e)
        unlink(path);
    return e;
}

pd_err pd_store_check(pd_store *s) {
    uint8_t beside[16];
    bool closed;
    pd_err e = check_whole(s);
    if (!e && (!read_instance(s, beside, &closed) || memcmp(beside, s->instance, 16) != 0))
        e = pd_fail(PD_EMISMATCH,
                    "%s/instance is not of this start: the folder was restored, or another "
                    "process uses it (stop all of them and start one)",
                    s->dir);
    return e;
}
