/* logs.c - authors' logs in rows of 1024 bytes: append, load and prove, follow the ledger; see
 * peerd/store.h. */
#include "peerd/bytes.h"
#include "peerd/log.h"
#include "store.h"

#include <assert.h>
#include <stdlib.h>

#define FOLLOW_BYTES (1 << 20)

/* As SQLite holds it. */
static int64_t sum_of(const uint8_t *b, size_t n, uint64_t j) {
    return (int64_t)pd_xxh64(b, n, j);
}

static pd_err author_id(pd_store *s, const pd_author *a, int64_t *id, bool *found) {
    return sql_number(s->db, id, found, "SELECT id FROM author WHERE key = ? AND inc = ?", "bi",
                      a->key, (size_t)32, (int64_t)a->inc);
}

/* ---- append ---- */

/* The chain as it stands in the database: C_j, n, and no tail yet; n = 0 where there is no log. */
static pd_err read_chain(pd_store *s, int64_t id, const pd_author *a, uint8_t stream, pd_chain *c) {
    sql_rows *r;
    bool row;
    pd_chain_init(c, s->run, a, stream);
    pd_err e = sql_ask(s->db, &r, "SELECT n, cj FROM log WHERE author = ? AND stream = ?", "ii", id,
                       (int64_t)stream);
    if (e)
        return e;
    e = sql_next(r, &row);
    if (!e && row) {
        size_t n;
        const uint8_t *cj = sql_blob(r, 1, &n);
        c->n = (uint64_t)sql_int(r, 0);
        if (n == 32)
            memcpy(c->c, cj, 32);
        else
            e = pd_fail(PD_EFORMAT, "%s: a log's row is damaged (start the node again)", s->path);
    }
    sql_done(r);
    return e;
}

/* Bytes 1024 j .. of a log; must be `want` of them, and whole: rot that was built upon would be
 * sealed again. */
static pd_err read_chunk(pd_store *s, int64_t id, uint8_t stream, uint64_t j, uint8_t *out,
                         size_t want) {
    sql_rows *r;
    bool row;
    size_t n = 0;
    pd_err e =
        sql_ask(s->db, &r, "SELECT b, sum FROM chunk WHERE author = ? AND stream = ? AND j = ?",
                "iii", id, (int64_t)stream, (int64_t)j);
    if (e)
        return e;
    e = sql_next(r, &row);
    const uint8_t *b = !e && row ? sql_blob(r, 0, &n) : NULL;
    if (b && n == want && sum_of(b, n, j) == sql_int(r, 1))
        memcpy(out, b, n);
    else if (!e)
        e = pd_fail(PD_EFORMAT, "%s: a chunk of a log is damaged (start the node again)", s->path);
    sql_done(r);
    return e;
}

/* Are the bytes from .. to-1, which are held, these?  Never two bytes for one step. */
static pd_err compare(pd_store *s, int64_t id, uint8_t stream, uint64_t held, uint64_t from,
                      uint64_t to, const uint8_t *bytes) {
    uint8_t chunk[PD_CHUNK_BYTES];
    for (uint64_t at = from; at < to;) {
        uint64_t begin = at / PD_CHUNK_BYTES * PD_CHUNK_BYTES;
        size_t size = held - begin < PD_CHUNK_BYTES ? (size_t)(held - begin) : PD_CHUNK_BYTES;
        uint64_t stop = begin + size < to ? begin + size : to;
        pd_err e = read_chunk(s, id, stream, begin / PD_CHUNK_BYTES, chunk, size);
        if (e)
            return e;
        if (memcmp(chunk + (at - begin), bytes + (at - from), (size_t)(stop - at)) != 0)
            return pd_fail(PD_EMISMATCH, "other bytes are held for steps %llu to %llu of this log",
                           (unsigned long long)at, (unsigned long long)stop - 1);
        at = stop;
    }
    return PD_OK;
}

/* Rows from chunk c->n div 1024 on; c has its tail; ends with the chain moved on. */
static pd_err write_chunks(pd_store *s, int64_t id, uint8_t stream, pd_chain *c,
                           const uint8_t *bytes, size_t n) {
    while (n) {
        uint64_t j = c->n / PD_CHUNK_BYTES;
        size_t at = c->n % PD_CHUNK_BYTES, room = PD_CHUNK_BYTES - at, take = n < room ? n : room;
        uint8_t chunk[PD_CHUNK_BYTES];
        memcpy(chunk, c->tail, at);
        memcpy(chunk + at, bytes, take);
        pd_err e = sql_write(s->db,
                             "INSERT INTO chunk VALUES (?, ?, ?, ?, ?)"
                             " ON CONFLICT DO UPDATE SET b = excluded.b, sum = excluded.sum",
                             "iiibi", id, (int64_t)stream, (int64_t)j, chunk, at + take,
                             sum_of(chunk, at + take, j));
        if (e)
            return e;
        pd_chain_add(c, bytes, take);
        bytes += take;
        n -= take;
    }
    return PD_OK;
}

/* The bytes after what is held. */
static pd_err extend(pd_store *s, int64_t id, uint8_t stream, pd_chain *c, const uint8_t *bytes,
                     size_t n, const uint8_t seal[64]) {
    size_t tail = c->n % PD_CHUNK_BYTES;
    pd_err e = tail ? read_chunk(s, id, stream, c->n / PD_CHUNK_BYTES, c->tail, tail) : PD_OK;
    if (!e)
        e = write_chunks(s, id, stream, c, bytes, n);
    if (!e)
        e = sql_write(
            s->db,
            "INSERT INTO log (author, stream, n, cj, seal) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET n = excluded.n, cj = excluded.cj, seal = excluded.seal",
            "iiibb", id, (int64_t)stream, (int64_t)c->n, c->c, (size_t)32, seal, (size_t)64);
    return e;
}

static pd_err make_author(pd_store *s, const pd_author *a, int64_t *id, bool known) {
    if (known)
        return PD_OK;
    pd_err e = sql_write(s->db, "INSERT INTO author (key, inc) VALUES (?, ?)", "bi", a->key,
                         (size_t)32, (int64_t)a->inc);
    return e ? e : author_id(s, a, id, &known);
}

pd_err pd_store_append(pd_store *s, const pd_author *author, uint8_t stream, uint64_t from,
                       const uint8_t *bytes, size_t n, const uint8_t seal[64]) {
    assert(stream < PD_STREAMS && author->inc < PD_INCARNATIONS && from < UINT64_MAX / 4);
    int64_t id = 0;
    bool known;
    pd_chain c;
    pd_err e = author_id(s, author, &id, &known);
    if (e)
        return e;
    if (known)
        e = read_chain(s, id, author, stream, &c);
    else
        pd_chain_init(&c, s->run, author, stream);
    if (e)
        return e;
    uint64_t held = c.n, end = from + n;
    if (from > held)
        return pd_fail(PD_EMISMATCH, "bytes from %llu do not follow the %llu stored",
                       (unsigned long long)from, (unsigned long long)held);
    e = compare(s, id, stream, held, from, end < held ? end : held, bytes);
    if (e || end <= held)
        return e;
    e = make_author(s, author, &id, known);
    if (!e)
        e = extend(s, id, stream, &c, bytes + (held - from), (size_t)(end - held), seal);
    if (e)
        sql_rollback(s->db);
    return store_wrote(s, e, (size_t)(end - held));
}

pd_err pd_store_end(pd_store *s, const pd_author *author, uint8_t stream, uint64_t *n) {
    int64_t v = 0;
    bool found;
    pd_err e = sql_number(s->db, &v, &found,
                          "SELECT n FROM log JOIN author ON author.id = log.author"
                          " WHERE key = ? AND inc = ? AND stream = ?",
                          "bii", author->key, (size_t)32, (int64_t)author->inc, (int64_t)stream);
    if (!e)
        *n = found ? (uint64_t)v : 0;
    return e;
}

/* ---- logs that begin at a base ---- */

/* Where a gradient log of the database begins; 0 also where there is none. */
static pd_err read_base(pd_store *s, int64_t id, uint64_t *base, uint8_t mark[32]) {
    sql_rows *r;
    bool row;
    pd_err e = sql_ask(s->db, &r, "SELECT base, mark FROM log WHERE author = ? AND stream = ?",
                       "ii", id, (int64_t)PD_STREAM_GRADIENTS);
    if (e)
        return e;
    *base = 0;
    e = sql_next(r, &row);
    if (!e && row && (*base = (uint64_t)sql_int(r, 0))) {
        size_t n;
        const uint8_t *is = sql_blob(r, 1, &n);
        if (n == 32)
            memcpy(mark, is, 32);
        else
            e = pd_fail(PD_EFORMAT, "%s: a log's row is damaged (start the node again)", s->path);
    }
    sql_done(r);
    return e;
}

/* The rows of a log that begins at c, its chain's place there. */
static pd_err write_based(pd_store *s, int64_t id, pd_chain *c, const uint8_t mark[32],
                          const uint8_t *bytes, size_t n, const uint8_t seal[64]) {
    const int64_t stream = PD_STREAM_GRADIENTS, base = (int64_t)c->n;
    pd_err e =
        sql_write(s->db, "DELETE FROM chunk WHERE author = ? AND stream = ?", "ii", id, stream);
    if (!e)
        e = write_chunks(s, id, PD_STREAM_GRADIENTS, c, bytes, n);
    if (!e)
        e = sql_write(s->db,
                      "INSERT OR REPLACE INTO log (author, stream, n, cj, seal, base, mark)"
                      " VALUES (?, ?, ?, ?, ?, ?, ?)",
                      "iiibbib", id, stream, (int64_t)c->n, c->c, (size_t)32, seal, (size_t)64,
                      base, mark, (size_t)32);
    return e;
}

pd_err pd_store_begin_at(pd_store *s, const pd_author *author, uint64_t base,
                         const uint8_t mark[32], const uint8_t *bytes, size_t n,
                         const uint8_t seal[64]) {
    assert(base && base % PD_CHUNK_BYTES == 0 && author->inc < PD_INCARNATIONS);
    int64_t id = 0;
    bool known;
    uint64_t held = 0;
    pd_chain c = {.n = base};
    memcpy(c.c, mark, 32);
    pd_err e = author_id(s, author, &id, &known);
    if (!e)
        e = pd_store_end(s, author, PD_STREAM_GRADIENTS, &held);
    if (!e && held >= base + n)
        e = pd_fail(PD_EMISMATCH, "%llu bytes of a log are stored already",
                    (unsigned long long)held);
    if (e)
        return e;
    e = make_author(s, author, &id, known);
    if (!e)
        e = write_based(s, id, &c, mark, bytes, n, seal);
    if (e)
        sql_rollback(s->db);
    return store_wrote(s, e, n);
}

pd_err pd_store_fill(pd_store *s, const pd_author *author, const uint8_t *bytes, size_t n) {
    int64_t id = 0;
    bool known;
    uint64_t base = 0;
    uint8_t mark[32];
    pd_chain c;
    pd_err e = author_id(s, author, &id, &known);
    if (!e && known)
        e = read_base(s, id, &base, mark);
    if (e)
        return e;
    pd_chain_init(&c, s->run, author, PD_STREAM_GRADIENTS);
    pd_chain_add(&c, bytes, n);
    if (!base || n != base || memcmp(c.c, mark, 32) != 0)
        return pd_fail(PD_EMISMATCH, "%zu bytes do not lead to a log's base", n);
    pd_chain_init(&c, s->run, author, PD_STREAM_GRADIENTS);
    e = write_chunks(s, id, PD_STREAM_GRADIENTS, &c, bytes, n);
    if (!e)
        e = sql_write(s->db, "UPDATE log SET base = 0, mark = NULL WHERE author = ? AND stream = ?",
                      "ii", id, (int64_t)PD_STREAM_GRADIENTS);
    if (e)
        sql_rollback(s->db);
    return store_wrote(s, e, n);
}

/* ---- load ---- */

typedef struct log_row {
    int64_t id;
    pd_author author;
    uint8_t stream, cj[32], seal[64], mark[32];
    uint64_t n, void_at, base;
} log_row;

typedef struct buffer {
    uint8_t *p;
    size_t n, room;
} buffer;

static bool grow(buffer *b, size_t n) {
    if (n <= b->room)
        return true;
    size_t room = b->room ? b->room : 64 * 1024;
    while (room < n)
        room *= 2;
    uint8_t *p = realloc(b->p, room);
    if (!p)
        return false;
    b->p = p;
    b->room = room;
    return true;
}

static bool take_blob(sql_rows *r, int column, uint8_t *out, size_t want) {
    size_t n;
    const uint8_t *p = sql_blob(r, column, &n);
    if (n != want)
        return false;
    memcpy(out, p, n);
    return true;
}

/* Every log there is, before any is changed. */
static pd_err list_logs(pd_store *s, buffer *out) {
    sql_rows *r;
    bool row;
    pd_err e = sql_ask(s->db, &r,
                       "SELECT id, key, inc, stream, n, cj, seal, ifnull(void, -1), base, mark"
                       " FROM log JOIN author ON author.id = log.author"
                       " ORDER BY id, stream",
                       "");
    if (e)
        return e;
    while (!(e = sql_next(r, &row)) && row) {
        log_row log = {.id = sql_int(r, 0),
                       .author.inc = (uint32_t)sql_int(r, 2),
                       .stream = (uint8_t)sql_int(r, 3),
                       .n = (uint64_t)sql_int(r, 4),
                       .void_at = (uint64_t)sql_int(r, 7), /* -1: PD_VOID_NEVER */
                       .base = (uint64_t)sql_int(r, 8)};
        if (!take_blob(r, 1, log.author.key, 32) || !take_blob(r, 5, log.cj, 32) ||
            !take_blob(r, 6, log.seal, 64) || (log.base && !take_blob(r, 9, log.mark, 32)))
            log.n = UINT64_MAX; /* proves nothing: will be cut */
        if (!grow(out, out->n + sizeof log)) {
            e = pd_fail(PD_ENOMEM, "no memory for the list of logs");
            break;
        }
        memcpy(out->p + out->n, &log, sizeof log);
        out->n += sizeof log;
    }
    sql_done(r);
    return e;
}

/* Rows from the base on as far as they are whole: each but the last of 1024 bytes, each with its
 * sum. */
static pd_err read_bytes(pd_store *s, const log_row *log, buffer *out) {
    sql_rows *r;
    bool row;
    out->n = 0;
    pd_err e =
        sql_ask(s->db, &r,
                "SELECT j, b, sum FROM chunk WHERE author = ? AND stream = ? AND j >= ? ORDER BY j",
                "iii", log->id, (int64_t)log->stream, (int64_t)(log->base / PD_CHUNK_BYTES));
    if (e)
        return e;
    while (!(e = sql_next(r, &row)) && row) {
        size_t n;
        const uint8_t *b = sql_blob(r, 1, &n);
        uint64_t j = (uint64_t)sql_int(r, 0);
        if (j * PD_CHUNK_BYTES != log->base + out->n || n > PD_CHUNK_BYTES ||
            sum_of(b, n, j) != sql_int(r, 2))
            break;
        if (!grow(out, out->n + n)) {
            e = pd_fail(PD_ENOMEM, "no memory for a log of %zu bytes", out->n);
            break;
        }
        memcpy(out->p + out->n, b, n);
        out->n += n;
    }
    sql_done(r);
    return e;
}

/* Is this the log that its author has signed? */
static bool proves_itself(const pd_store *s, const log_row *log, const buffer *bytes) {
    bool based = log->base && log->stream == PD_STREAM_GRADIENTS;
    if (log->stream >= PD_STREAMS || log->author.inc >= PD_INCARNATIONS || log->n == 0 ||
        log->base > log->n || bytes->n != log->n - log->base || (log->base && !based) ||
        log->base % PD_CHUNK_BYTES)
        return false;
    pd_chain c;
    uint8_t message[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, s->run, &log->author, log->stream);
    if (based) {
        memcpy(c.c, log->mark, 32);
        c.n = log->base;
    }
    pd_chain_add(&c, bytes->p, bytes->n);
    pd_seal_message(&c, s->run, &log->author, log->stream, message);
    return memcmp(c.c, log->cj, 32) == 0 &&
           pd_verify(log->author.key, message, sizeof message, log->seal);
}

static pd_err cut(pd_store *s, const log_row *log, const uint8_t own[32], pd_store_report *out) {
    char key[17];
    bool ours = own && memcmp(own, log->author.key, 32) == 0;
    pd_hex(log->author.key, 8, key);
    pd_warn("the %s log of %s%s is damaged on this disk: asking for it again",
            log->stream == PD_STREAM_CONTROL ? "control" : "gradient", key,
            ours ? " (this node)" : "");
    out->cut++;
    out->own_cut |= ours;
    s->restored |= ours;
    pd_err e = sql_write(s->db, "DELETE FROM chunk WHERE author = ? AND stream = ?", "ii", log->id,
                         (int64_t)log->stream);
    if (!e)
        e = sql_write(s->db, "DELETE FROM log WHERE author = ? AND stream = ?", "ii", log->id,
                      (int64_t)log->stream);
    return store_wrote(s, e, 0);
}

pd_err pd_store_load(pd_store *s, const uint8_t own[32], pd_ledger *l, pd_store_report *out) {
    buffer logs = {0}, bytes = {0};
    pd_store_report report = {0};
    int64_t last = -1;
    pd_err e = list_logs(s, &logs);
    for (size_t at = 0; !e && at < logs.n; at += sizeof(log_row)) {
        log_row log;
        memcpy(&log, logs.p + at, sizeof log);
        e = read_bytes(s, &log, &bytes);
        if (e)
            break;
        if (!proves_itself(s, &log, &bytes)) {
            e = cut(s, &log, own, &report);
            continue;
        }
        uint32_t index;
        e = pd_ledger_author(l, &log.author, &index);
        if (!e && log.base)
            e = pd_ledger_begin_at(l, index, log.base, log.mark, bytes.p, bytes.n, log.seal);
        else if (!e)
            e = pd_ledger_append(l, index, log.stream, 0, bytes.p, bytes.n, log.seal);
        if (!e)
            pd_ledger_void(l, index, log.void_at);
        report.bytes += bytes.n;
        report.authors += log.id != last;
        last = log.id;
    }
    free(logs.p);
    free(bytes.p);
    if (!e)
        e = pd_store_commit(s);
    if (!e)
        *out = report;
    return e;
}

/* ---- follow ---- */

static bool remember(pd_store *s, uint32_t authors) {
    if (sql_rollbacks(s->db) != s->follow_rollbacks) { /* what was undone is not there any more */
        s->follow_rollbacks = sql_rollbacks(s->db);
        s->n_followed = 0;
    }
    if (authors <= s->n_followed)
        return true;
    followed *f = realloc(s->followed, authors * sizeof *f);
    if (!f)
        return false;
    memset(f + s->n_followed, 0, (authors - s->n_followed) * sizeof *f);
    s->followed = f;
    s->n_followed = authors;
    return true;
}

/* One log to its end: a seal covers no less. */
static pd_err follow_log(pd_store *s, pd_ledger *l, uint32_t index, const pd_log_info *info,
                         uint8_t stream, size_t *took) {
    uint64_t held = 0;
    pd_err e = pd_store_end(s, &info->author, stream, &held);
    if (e || held >= info->n[stream])
        return e;
    size_t n = (size_t)(info->n[stream] - held);
    uint8_t *bytes = malloc(n);
    if (!bytes)
        return pd_fail(PD_ENOMEM, "no memory to store %zu bytes", n);
    size_t got = pd_ledger_read(l, index, stream, held, bytes, n);
    assert(got == n); /* a ledger never shrinks */
    e = pd_store_append(s, &info->author, stream, held, bytes, n, info->seal[stream]);
    free(bytes);
    *took += n;
    return e;
}

static pd_err read_piece(pd_ledger *l, uint32_t index, uint64_t from, size_t n, uint8_t **out) {
    uint8_t *bytes = malloc(n ? n : 1);
    if (!bytes)
        return pd_fail(PD_ENOMEM, "no memory to store %zu bytes", n);
    size_t got = pd_ledger_read(l, index, PD_STREAM_GRADIENTS, from, bytes, n);
    assert(got == n); /* a ledger never shrinks, and a base only becomes 0 */
    *out = bytes;
    return PD_OK;
}

/* A log begins elsewhere than it does in the database: at a checkpoint's cut, or whole again. */
static pd_err follow_base(pd_store *s, pd_ledger *l, uint32_t index, const pd_log_info *info,
                          size_t *took) {
    followed *f = &s->followed[index];
    int64_t id = 0;
    bool known;
    uint64_t base = 0, n = info->n[PD_STREAM_GRADIENTS];
    uint8_t mark[32], *bytes = NULL;
    if ((f->base_kept && f->base == info->base) || n == 0)
        return PD_OK;
    pd_err e = author_id(s, &info->author, &id, &known);
    if (!e && known)
        e = read_base(s, id, &base, mark);
    if (!e && base != info->base) {
        uint64_t from = info->base, to = info->base ? n : base;
        e = read_piece(l, index, from, (size_t)(to - from), &bytes);
        if (!e)
            e = info->base ? pd_store_begin_at(s, &info->author, from, info->mark, bytes,
                                               (size_t)(to - from), info->seal[0])
                           : pd_store_fill(s, &info->author, bytes, (size_t)(to - from));
        free(bytes);
        *took += (size_t)(to - from);
    }
    f->base = info->base;
    f->base_kept = !e;
    return e;
}

/* What the ledger says of its voids before its logs are looked at: the records that a void rests on
 * are then among what this round stores, and a crash never leaves it without them.
 */
static void see_voids(pd_store *s, pd_ledger *l, uint32_t authors) {
    pd_log_info info;
    for (uint32_t i = 0; i < authors && pd_ledger_info(l, i, &info); i++)
        s->followed[i].void_seen = info.void_at;
}

static pd_err keep_voids(pd_store *s, pd_ledger *l, uint32_t authors) {
    pd_err e = PD_OK;
    pd_log_info info;
    for (uint32_t i = 0; !e && i < authors && pd_ledger_info(l, i, &info); i++) {
        followed *f = &s->followed[i];
        bool has_row = f->n[0] || f->n[1];
        if (!has_row || (f->void_kept && f->void_at == f->void_seen))
            continue;
        e = f->void_seen == PD_VOID_NEVER
                ? sql_write(s->db,
                            "UPDATE author SET void = NULL"
                            " WHERE key = ? AND inc = ? AND void IS NOT NULL",
                            "bi", info.author.key, (size_t)32, (int64_t)info.author.inc)
                : sql_write(s->db, "UPDATE author SET void = ? WHERE key = ? AND inc = ?", "ibi",
                            (int64_t)f->void_seen, info.author.key, (size_t)32,
                            (int64_t)info.author.inc);
        f->void_at = f->void_seen;
        f->void_kept = true;
        e = store_wrote(s, e, sizeof f->void_at);
    }
    return e;
}

pd_err pd_store_follow(pd_store *s, pd_ledger *l, bool *behind) {
    uint32_t authors = pd_ledger_authors(l);
    size_t took = 0;
    if (!remember(s, authors))
        return pd_fail(PD_ENOMEM, "no memory to follow %u authors", authors);
    *behind = false;
    see_voids(s, l, authors);
    for (uint32_t k = 0; k < authors; k++) {
        uint32_t index = (s->follow_at + k) % authors;
        pd_log_info info;
        if (!pd_ledger_info(l, index, &info))
            continue;
        pd_err e = follow_base(s, l, index, &info, &took);
        if (e)
            return e;
        for (uint8_t stream = 0; stream < PD_STREAMS; stream++) {
            if (info.n[stream] <= s->followed[index].n[stream])
                continue;
            if (took >= FOLLOW_BYTES) {
                *behind = true;
                s->follow_at = index;
                return PD_OK;
            }
            e = follow_log(s, l, index, &info, stream, &took);
            if (e)
                return e;
            s->followed[index].n[stream] = info.n[stream];
        }
    }
    return keep_voids(s, l, authors);
}
