/* keep.c - small values, files, invites, addresses, checkpoints; see peerd/store.h. */
#include "peerd/bytes.h"
#include "store.h"

#include <assert.h>
#include <stdlib.h>

/* A blob into fresh memory, with a 0 byte after its end. */
static pd_err give(sql_rows *r, int column, uint8_t **out, size_t *n) {
    size_t size;
    const uint8_t *p = sql_blob(r, column, &size);
    uint8_t *copy = malloc(size + 1);
    if (!copy)
        return pd_fail(PD_ENOMEM, "no memory for %zu bytes of the store", size);
    if (size)
        memcpy(copy, p, size);
    copy[size] = 0;
    *out = copy;
    *n = size;
    return PD_OK;
}

/* ---- values, files ---- */

pd_err pd_store_meta_set(pd_store *s, const char *name, const void *v, size_t n) {
    assert(strcmp(name, "run") != 0 && strcmp(name, "instance") != 0);
    return store_wrote(
        s, sql_write(s->db, "INSERT OR REPLACE INTO meta VALUES (?, ?)", "tb", name, v, n), n);
}

pd_err pd_store_meta_get(pd_store *s, const char *name, uint8_t **v, size_t *n) {
    sql_rows *r;
    bool row;
    pd_err e = sql_ask(s->db, &r, "SELECT v FROM meta WHERE k = ?", "t", name);
    if (e)
        return e;
    e = sql_next(r, &row);
    if (!e)
        e = row ? give(r, 0, v, n)
                : pd_fail(PD_ENOENT, "%s: nothing is stored as %s", s->path, name);
    sql_done(r);
    return e;
}

pd_err pd_store_file_put(pd_store *s, const uint8_t digest[32], const void *p, size_t n) {
    uint8_t is[32];
    pd_hash256(p, n, is);
    if (memcmp(is, digest, 32) != 0)
        return pd_fail(PD_EMISMATCH, "a file of %zu bytes is not the one its digest names", n);
    return store_wrote(s,
                       sql_write(s->db, "INSERT OR REPLACE INTO file VALUES (?, ?)", "bb", digest,
                                 (size_t)32, p, n),
                       n);
}

pd_err pd_store_file_get(pd_store *s, const uint8_t digest[32], uint8_t **p, size_t *n) {
    sql_rows *r;
    bool row, damaged = false;
    uint8_t is[32], *bytes = NULL;
    size_t size = 0;
    pd_err e =
        sql_ask(s->db, &r, "SELECT bytes FROM file WHERE digest = ?", "b", digest, (size_t)32);
    if (e)
        return e;
    e = sql_next(r, &row);
    if (!e)
        e = row ? give(r, 0, &bytes, &size)
                : pd_fail(PD_ENOENT, "%s does not hold this file", s->path);
    sql_done(r);
    if (e)
        return e;
    pd_hash256(bytes, size, is);
    damaged = memcmp(is, digest, 32) != 0;
    if (damaged) {
        free(bytes);
        e = sql_write(s->db, "DELETE FROM file WHERE digest = ?", "b", digest, (size_t)32);
        e = store_wrote(s, e, 0);
        return e ? e : pd_fail(PD_ENOENT, "%s: this file was damaged on the disk", s->path);
    }
    *p = bytes;
    *n = size;
    return PD_OK;
}

/* ---- checkpoint files ---- */

/* meta `shared`: the digests of the files served, 32 bytes each, the newest first. */
enum { SHARED = 2 };

static pd_err read_shared(pd_store *s, uint8_t digests[SHARED][32], unsigned *count) {
    uint8_t *v;
    size_t n;
    *count = 0;
    pd_err e = pd_store_meta_get(s, "shared", &v, &n);
    if (e)
        return e == PD_ENOENT ? PD_OK : e;
    for (; *count < SHARED && n >= 32 * (*count + 1); ++*count)
        memcpy(digests[*count], v + 32 * *count, 32);
    free(v);
    return PD_OK;
}

pd_err pd_store_shared_put(pd_store *s, const uint8_t digest[32], const void *p, size_t n) {
    uint8_t is[SHARED][32], now[SHARED][32];
    unsigned count, kept = 1;
    pd_err e = read_shared(s, is, &count);
    memcpy(now[0], digest, 32);
    for (unsigned i = 0; i < count && !e; i++) {
        if (memcmp(is[i], digest, 32) == 0)
            continue;
        if (kept < SHARED)
            memcpy(now[kept++], is[i], 32);
        else
            e = store_wrote(
                s, sql_write(s->db, "DELETE FROM file WHERE digest = ?", "b", is[i], (size_t)32),
                0);
    }
    if (!e)
        e = pd_store_file_put(s, digest, p, n);
    return e ? e : pd_store_meta_set(s, "shared", now, (size_t)32 * kept);
}

pd_err pd_store_shared_get(pd_store *s, unsigned i, uint8_t digest[32], uint8_t **file, size_t *n) {
    uint8_t is[SHARED][32];
    unsigned count;
    pd_err e = read_shared(s, is, &count);
    if (!e && i >= count)
        e = pd_fail(PD_ENOENT, "%s holds %u checkpoint files", s->path, count);
    if (e)
        return e;
    e = pd_store_file_get(s, is[i], file, n);
    if (!e)
        memcpy(digest, is[i], 32);
    return e == PD_ENOENT ? PD_EMISMATCH : e;
}

/* meta `begun`: state 1 | digest 32 | voices 4 | records 8 */
enum { BEGUN_BYTES = 1 + 32 + 4 + 8 };

pd_err pd_store_begun_get(pd_store *s, pd_store_begun *out) {
    uint8_t *v;
    size_t n;
    pd_err e = pd_store_meta_get(s, "begun", &v, &n);
    memset(out, 0, sizeof *out);
    if (e)
        return e == PD_ENOENT ? PD_OK : e;
    if (n == BEGUN_BYTES && v[0] <= PD_AUDIT_DIFFERS) {
        out->state = (pd_audit_state)v[0];
        memcpy(out->digest, v + 1, 32);
        out->voices = pd_load32(v + 33);
        out->records = pd_load64(v + 37);
    } else {
        e = pd_fail(PD_EFORMAT, "%s: what it says of the checkpoint that it began with is damaged",
                    s->path);
    }
    free(v);
    return e;
}

/* It has proven right: others may have it, and it goes when it is old. */
static pd_err share(pd_store *s, const uint8_t digest[32]) {
    uint8_t *file;
    size_t n;
    pd_err e = pd_store_file_get(s, digest, &file, &n);
    if (e)
        return e == PD_ENOENT ? PD_OK : e;
    e = pd_store_shared_put(s, digest, file, n);
    free(file);
    return e;
}

pd_err pd_store_begun_set(pd_store *s, const pd_store_begun *b) {
    uint8_t v[BEGUN_BYTES];
    v[0] = (uint8_t)b->state;
    memcpy(v + 1, b->digest, 32);
    pd_store32(v + 33, b->voices);
    pd_store64(v + 37, b->records);
    pd_store_begun was;
    pd_err e = pd_store_begun_get(s, &was);
    bool wrong = b->state == PD_AUDIT_DIFFERS || b->state == PD_AUDIT_NONE;
    if (!e && wrong) /* nor what was built on it */
        e = store_wrote(s, sql_write(s->db, "DELETE FROM ckpt", ""), 0);
    if (!e && wrong)
        e = store_wrote(
            s, sql_write(s->db, "DELETE FROM file WHERE digest = ?", "b", was.digest, (size_t)32),
            0);
    if (!e && b->state == PD_AUDIT_EQUAL)
        e = share(s, was.digest);
    return e ? e : pd_store_meta_set(s, "begun", v, sizeof v);
}

/* ---- invites ---- */

pd_err pd_store_invite_add(pd_store *s, const pd_invite *v) {
    int64_t there;
    bool found;
    pd_err e =
        sql_number(s->db, &there, &found, "SELECT 1 FROM invite WHERE id = ?", "i", (int64_t)v->id);
    if (!e && found)
        e = pd_fail(PD_EEXIST, "there is an invite of this number");
    if (e)
        return e;
    e = sql_write(s->db, "INSERT INTO invite VALUES (?, ?, ?, ?)", "ibii", (int64_t)v->id,
                  v->secret, (size_t)16, (int64_t)v->uses, v->expires_s);
    return store_wrote(s, e, sizeof *v);
}

pd_err pd_store_invite_use(pd_store *s, uint64_t id) {
    int64_t uses = 0;
    bool found;
    pd_err e =
        sql_number(s->db, &uses, &found, "SELECT uses FROM invite WHERE id = ?", "i", (int64_t)id);
    if (!e && !found)
        e = pd_fail(PD_ENOENT, "there is no such invite");
    if (!e && uses <= 0)
        e = pd_fail(PD_EGONE, "this invite is used up");
    if (e)
        return e;
    e = sql_write(s->db, "UPDATE invite SET uses = uses - 1 WHERE id = ?", "i", (int64_t)id);
    return store_wrote(s, e, sizeof id);
}

pd_err pd_store_invite_delete(pd_store *s, uint64_t id) {
    pd_err e = sql_write(s->db, "DELETE FROM invite WHERE id = ?", "i", (int64_t)id);
    e = store_wrote(s, e, sizeof id);
    return e || sql_changed(s->db) ? e : pd_fail(PD_ENOENT, "there is no such invite");
}

pd_err pd_store_invite_expire(pd_store *s, int64_t now_s) {
    int64_t n = 0;
    pd_err e = sql_number(s->db, &n, NULL,
                          "SELECT count(*) FROM invite WHERE expires BETWEEN 1 AND ?", "i", now_s);
    if (e || n == 0)
        return e;
    e = sql_write(s->db, "DELETE FROM invite WHERE expires BETWEEN 1 AND ?", "i", now_s);
    return store_wrote(s, e, sizeof now_s);
}

pd_err pd_store_invites(pd_store *s, pd_invite *out, size_t room, size_t *n) {
    sql_rows *r;
    bool row;
    size_t got = 0;
    pd_err e = sql_ask(s->db, &r, "SELECT id, seed, uses, expires FROM invite ORDER BY id", "");
    if (e)
        return e;
    while (got < room && !(e = sql_next(r, &row)) && row) {
        size_t size;
        const uint8_t *secret = sql_blob(r, 1, &size);
        pd_invite v = {.id = (uint64_t)sql_int(r, 0),
                       .uses = (uint32_t)sql_int(r, 2),
                       .expires_s = sql_int(r, 3)};
        if (size != sizeof v.secret)
            continue;
        memcpy(v.secret, secret, size);
        out[got++] = v;
    }
    sql_done(r);
    if (!e)
        *n = got;
    return e;
}

/* ---- addresses ---- */

pd_err pd_store_addr_put(pd_store *s, const pd_store_addr *a) {
    uint8_t bytes[PD_ADDR_BYTES_MAX];
    pd_writer w = pd_writer_of(bytes, sizeof bytes);
    pd_put_addr(&w, &a->addr);
    assert(w.ok);
    pd_err e = sql_write(s->db, "INSERT OR REPLACE INTO addr VALUES (?, ?, ?, ?, ?)", "bbiii",
                         a->key, (size_t)32, bytes, (size_t)(w.p - bytes), (int64_t)a->seq,
                         a->last_ok_s, (int64_t)a->fails);
    return store_wrote(s, e, sizeof *a);
}

pd_err pd_store_addrs(pd_store *s, pd_store_addr *out, size_t room, size_t *n) {
    sql_rows *r;
    bool row;
    size_t got = 0;
    pd_err e =
        sql_ask(s->db, &r,
                "SELECT key, addr, seq, last_ok, fails FROM addr ORDER BY last_ok DESC, key", "");
    if (e)
        return e;
    while (got < room && !(e = sql_next(r, &row)) && row) {
        pd_store_addr a = {.seq = (uint64_t)sql_int(r, 2),
                           .last_ok_s = sql_int(r, 3),
                           .fails = (uint32_t)sql_int(r, 4)};
        size_t key_size, size;
        const uint8_t *key = sql_blob(r, 0, &key_size), *bytes = sql_blob(r, 1, &size);
        pd_reader in = pd_reader_of(bytes, size);
        a.addr = pd_get_addr(&in);
        if (key_size != 32 || !in.ok || pd_reader_left(&in))
            continue; /* a row that rotted: only a hint is lost */
        memcpy(a.key, key, 32);
        out[got++] = a;
    }
    sql_done(r);
    if (!e)
        *n = got;
    return e;
}

/* ---- checkpoints ---- */

typedef struct vv_entry {
    const pd_author *author;
    uint64_t n;
} vv_entry;

static int by_author(const void *a, const void *b) {
    return pd_author_order(((const vv_entry *)a)->author, ((const vv_entry *)b)->author);
}

/* gives *out.  *records: the sum of n. */
static pd_err write_vv(const pd_author *authors, const uint64_t *n, uint32_t count, uint8_t **out,
                       size_t *size, uint64_t *records) {
    size_t room = 5 + (size_t)count * (32 + 5 + 10);
    vv_entry *v = calloc(count ? count : 1, sizeof *v);
    uint8_t *bytes = malloc(room);
    if (!v || !bytes) {
        free(v);
        free(bytes);
        return pd_fail(PD_ENOMEM, "no memory for a checkpoint's vector");
    }
    *records = 0;
    for (uint32_t i = 0; i < count; i++) {
        v[i] = (vv_entry){&authors[i], n[i]};
        *records += n[i];
    }
    qsort(v, count, sizeof *v, by_author);
    pd_writer w = pd_writer_of(bytes, room);
    pd_put_varint(&w, count);
    for (uint32_t i = 0; i < count; i++) {
        pd_put_bytes(&w, v[i].author->key, 32);
        pd_put_varint(&w, v[i].author->inc);
        pd_put_varint(&w, v[i].n);
    }
    assert(w.ok);
    free(v);
    *out = bytes;
    *size = (size_t)(w.p - bytes);
    return PD_OK;
}

static bool read_vv(const uint8_t *p, size_t size, pd_author *authors, uint64_t *n, uint32_t room,
                    uint32_t *count) {
    pd_reader r = pd_reader_of(p, size);
    uint32_t entries = (uint32_t)pd_get_varint_max(&r, room);
    for (uint32_t i = 0; i < entries && r.ok; i++) {
        const uint8_t *key = pd_get_bytes(&r, 32);
        authors[i].inc = (uint32_t)pd_get_varint_max(&r, PD_INCARNATIONS - 1);
        n[i] = pd_get_varint(&r);
        if (!r.ok)
            return false;
        memcpy(authors[i].key, key, 32);
        if (i && pd_author_order(&authors[i - 1], &authors[i]) >= 0)
            return false;
    }
    *count = entries;
    return r.ok && pd_reader_left(&r) == 0;
}

pd_err pd_store_ckpt_put(pd_store *s, const uint8_t digest[PD_DIGEST_BYTES], const int32_t *a,
                         size_t d, const pd_author *authors, const uint64_t *n, uint32_t count) {
    uint8_t *vv = NULL;
    size_t vv_size = 0;
    uint64_t records = 0;
    pd_err e = write_vv(authors, n, count, &vv, &vv_size, &records);
    if (e)
        return e;
    uint8_t *le = malloc(4 * d + 1);
    if (!le) {
        free(vv);
        return pd_fail(PD_ENOMEM, "no memory for a checkpoint of %zu coordinates", d);
    }
    for (size_t i = 0; i < d; i++)
        pd_store32(le + 4 * i, (uint32_t)a[i]);
    e = sql_write(s->db, "INSERT INTO ckpt (digest, vv, sum, a, records) VALUES (?, ?, ?, ?, ?)",
                  "bbibi", digest, (size_t)PD_DIGEST_BYTES, vv, vv_size,
                  (int64_t)pd_xxh64(vv, vv_size, 0), le, 4 * d, (int64_t)records);
    if (!e)
        e = sql_write(
            s->db,
            "DELETE FROM ckpt WHERE id NOT IN (SELECT id FROM ckpt ORDER BY id DESC LIMIT 2)", "");
    free(le);
    free(vv);
    return store_wrote(s, e, 4 * d);
}

/* Does the row the query stands on hold d coordinates and a vector, both whole? */
static bool read_ckpt(sql_rows *r, int32_t *a, size_t d, pd_author *authors, uint64_t *n,
                      uint32_t room, uint32_t *count) {
    size_t digest_size, vv_size, size;
    const uint8_t *digest = sql_blob(r, 0, &digest_size), *vv = sql_blob(r, 1, &vv_size),
                  *le = sql_blob(r, 3, &size);
    uint8_t is[PD_DIGEST_BYTES];
    if (size != 4 * d || digest_size != sizeof is ||
        (int64_t)pd_xxh64(vv, vv_size, 0) != sql_int(r, 2))
        return false;
    for (size_t i = 0; i < d; i++)
        a[i] = (int32_t)pd_load32(le + 4 * i);
    pd_replay_digest(a, d, is);
    return memcmp(is, digest, sizeof is) == 0 && read_vv(vv, vv_size, authors, n, room, count);
}

pd_err pd_store_ckpt_get(pd_store *s, int32_t *a, size_t d, pd_author *authors, uint64_t *n,
                         uint32_t room, uint32_t *count) {
    sql_rows *r;
    bool row = false, good = false;
    pd_err e = sql_ask(s->db, &r, "SELECT digest, vv, sum, a FROM ckpt ORDER BY id DESC", "");
    if (e)
        return e;
    while (!good && !(e = sql_next(r, &row)) && row)
        good = read_ckpt(r, a, d, authors, n, room, count);
    sql_done(r);
    return e || good
               ? e
               : pd_fail(PD_ENOENT, "%s holds no checkpoint of this model that verifies", s->path);
}
