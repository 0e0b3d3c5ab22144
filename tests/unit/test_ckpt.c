/* test_ckpt.c - checkpoints: their bytes, making and reproducing them, logs that begin at one in
 * ledger, replica and store, and whose word a newcomer's core takes.
 */
#include "ledger_port.h"
#include "peerd/ckpt.h"
#include "peerd/frame.h"
#include "peerd/store.h"
#include "test.h"

#include <sqlite3.h>

#define ck_ok(e) ck_assert_msg((e) == PD_OK, "%s", pd_fail_text())

enum { D = 64, AUTHORS = 3, ROOM = 4096, KEYS = 12 };

static pd_identity id[KEYS];
static pd_manifest manifest;
static uint8_t run[32];
static uint8_t bytes[AUTHORS][ROOM]; /* what each author says, however much of it is out */

static char dir[32];

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx;
    return pd_verify(pub, msg, n, sig);
}

static void setup(void) {
    manifest = (pd_manifest){.model_name = "m",
                             .model_arch = "llama",
                             .space = PD_SPACE_LORA,
                             .rank = 1,
                             .alpha = 1,
                             .targets = 1,
                             .unit_bits = 26,
                             .n_coords = D,
                             .eps = 1,
                             .scale = UINT64_C(1) << 34,
                             .lr = UINT64_C(1) << 31};
    for (int i = 0; i < KEYS; i++) {
        uint8_t seed[32] = {(uint8_t)(40 + i)};
        pd_identity_from_seed(seed, &id[i]);
    }
    strcpy(dir, "/tmp/pd-ckpt-XXXXXX");
    ck_assert(mkdtemp(dir) != NULL);
    memcpy(manifest.founder, id[0].pub, 32);
    pd_manifest_run_id(&manifest, run);
    for (int i = 0; i < AUTHORS; i++)
        for (int k = 0; k < ROOM; k++)
            bytes[i][k] = (uint8_t)((i * 31 + k * 7 + k / 251) % 128);
}

static void teardown(void) {
    static const char *const names[] = {"ledger.db", "ledger.db-wal", "instance", "ballast"};
    char path[64];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static pd_author author(int i) {
    pd_author a = {.inc = 0};
    memcpy(a.key, id[i].pub, 32);
    return a;
}

static void seal_of(int i, uint8_t stream, const uint8_t *p, size_t n, uint8_t seal[64]) {
    pd_author a = author(i);
    port_sign(&id[i], run, &a, stream, p, n, seal);
}

static uint32_t index_of(pd_ledger *l, int i) {
    pd_author a = author(i);
    uint32_t index;
    ck_ok(pd_ledger_author(l, &a, &index));
    return index;
}

/* Author i has said n records, as far as this ledger knows. */
static void say(pd_ledger *l, int i, size_t n) {
    uint8_t seal[64];
    pd_log_info info;
    uint32_t index = index_of(l, i);
    ck_assert(pd_ledger_info(l, index, &info));
    size_t held = (size_t)info.n[0];
    seal_of(i, PD_STREAM_GRADIENTS, bytes[i], n, seal);
    ck_ok(pd_ledger_append(l, index, PD_STREAM_GRADIENTS, held, bytes[i] + held, n - held, seal));
}

typedef struct side { /* one node's ledger and replica */
    pd_ledger *l;
    pd_replica r;
} side;

static void follow(side *s) {
    uint64_t folded = 1;
    while (folded)
        ck_ok(pd_replica_follow(&s->r, s->l, UINT64_MAX, &folded));
}

static void begin(side *s, size_t a, size_t b, size_t c) {
    size_t n[AUTHORS] = {a, b, c};
    ck_ok(pd_ledger_open(&s->l));
    ck_ok(pd_replica_open(&manifest, &s->r));
    for (int i = 0; i < AUTHORS; i++)
        if (n[i])
            say(s->l, i, n[i]);
    follow(s);
}

static void end(side *s) {
    pd_replica_close(&s->r);
    pd_ledger_close(s->l);
}

typedef struct made {
    uint8_t *p;
    size_t n;
    pd_ckpt_name name;
} made;

static made make(side *s) {
    made f;
    ck_ok(pd_ckpt_make(&s->r, s->l, &f.p, &f.n, &f.name));
    return f;
}

static pd_ckpt_verdict check(const made *f, const side *s, uint64_t most) {
    pd_ckpt_verdict v;
    const char *why;
    ck_ok(pd_ckpt_check(f->p, f->n, &s->r, s->l, most, verify, NULL, &v, &why));
    return v;
}

/* A newcomer installs what it reads here: places, coordinates and proofs must be those of the
 * maker, and nothing but the whole file may read as one.
 */
START_TEST(a_file_says_what_its_maker_holds) {
    side s;
    pd_ckpt c;
    pd_ckpt_log log;
    int32_t a[D];
    uint8_t digest[PD_DIGEST_BYTES], sealed[PD_DIGEST_BYTES];
    begin(&s, 2500, 1024, 7);
    made f = make(&s);
    ck_ok(pd_ckpt_open(f.p, f.n, run, &c));
    ck_assert_uint_eq(c.count, 3);
    ck_assert_uint_eq(f.name.records, 2500 + 1024 + 7);
    pd_ckpt_coords(&c, a);
    pd_replay_digest(a, D, digest);
    pd_replica_sealed(&s.r, a, sealed);
    ck_assert_mem_eq(digest, sealed, sizeof digest);
    uint32_t seen = 0;
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &log);)
        for (int i = 0; i < AUTHORS; i++)
            if (!memcmp(log.author.key, id[i].pub, 32)) {
                const uint64_t n[AUTHORS] = {2500, 1024, 7};
                ck_assert_uint_eq(log.chain.n, n[i]);
                ck_assert_mem_eq(log.chain.tail, bytes[i] + pd_ckpt_base(n[i]), n[i] % 1024);
                ck_assert(pd_ckpt_sealed(&log, run, verify, NULL));
                log.chain.c[3] ^= 1;
                ck_assert(!pd_ckpt_sealed(&log, run, verify, NULL));
                seen++;
            }
    ck_assert_uint_eq(seen, 3);
    for (size_t n = 0; n < f.n; n++)
        ck_assert_int_eq(pd_ckpt_open(f.p, n, run, &c), PD_EFORMAT);
    uint8_t other[32] = {9};
    ck_assert_int_eq(pd_ckpt_open(f.p, f.n, other, &c), PD_EMISMATCH);
    free(f.p);
    end(&s);
}
END_TEST

/* Attestations that were not reproduced, or could not be by honest nodes that stand elsewhere,
 * would make the rule of voices worthless. */
START_TEST(others_reproduce_it_from_wherever_they_stand) {
    side s, on, less, mixed;
    begin(&s, 2500, 1024, 7);
    begin(&on, 3000, 2048, 2000);
    begin(&less, 2499, 1024, 7);
    begin(&mixed, 4000, 1024, 7);
    made f = make(&s);
    ck_assert_int_eq(check(&f, &s, 0), PD_CKPT_RIGHT);
    ck_assert_int_eq(check(&f, &on, UINT64_MAX), PD_CKPT_RIGHT);
    ck_assert_int_eq(check(&f, &mixed, 1500), PD_CKPT_RIGHT);
    ck_assert_int_eq(check(&f, &mixed, 1499), PD_CKPT_UNKNOWN); /* it would cost one more */
    ck_assert_int_eq(check(&f, &less, UINT64_MAX), PD_CKPT_UNKNOWN);
    int32_t before[D], after[D];
    uint8_t d1[PD_DIGEST_BYTES], d2[PD_DIGEST_BYTES];
    pd_replica_sealed(&on.r, before, d1);
    ck_assert_int_eq(check(&f, &on, UINT64_MAX), PD_CKPT_RIGHT);
    pd_replica_sealed(&on.r, after, d2);
    ck_assert_mem_eq(d1, d2, sizeof d1); /* the replica stays where it was */
    pd_ledger_void(on.l, index_of(on.l, 0), 2499);
    follow(&on);
    ck_assert_int_eq(check(&f, &on, UINT64_MAX), PD_CKPT_UNKNOWN);
    free(f.p);
    end(&s), end(&on), end(&less), end(&mixed);
}
END_TEST

/* What a liar may write: another model, another place in somebody's log, another seal. */
START_TEST(what_is_made_up_is_found) {
    side s;
    begin(&s, 2500, 1024, 7);
    made f = make(&s);
    pd_ckpt c;
    ck_ok(pd_ckpt_open(f.p, f.n, run, &c));
    size_t entry = (size_t)(c.entries - f.p), coords = (size_t)(c.coords - f.p);
    for (size_t at = entry; at < f.n; at += at < coords ? 37 : 1) {
        pd_ckpt_verdict v = PD_CKPT_WRONG;
        const char *why;
        f.p[at] ^= 1;
        pd_err e = pd_ckpt_check(f.p, f.n, &s.r, s.l, UINT64_MAX, verify, NULL, &v, &why);
        ck_assert(e != PD_OK || v != PD_CKPT_RIGHT);
        ck_assert(at < coords || v == PD_CKPT_WRONG);
        f.p[at] ^= 1;
    }
    ck_assert_int_eq(check(&f, &s, UINT64_MAX), PD_CKPT_RIGHT);
    free(f.p);
    end(&s);
}
END_TEST

/* Records that do not count must not come back to others through a file. */
START_TEST(a_log_with_void_records_is_left_out) {
    side s;
    begin(&s, 2500, 1024, 7);
    pd_ledger_void(s.l, index_of(s.l, 1), 500);
    follow(&s);
    made f = make(&s);
    pd_ckpt c;
    ck_ok(pd_ckpt_open(f.p, f.n, run, &c));
    ck_assert_uint_eq(c.count, 2);
    ck_assert_uint_eq(c.records, 2507);
    side plain;
    begin(&plain, 2500, 0, 7);
    made g = make(&plain);
    ck_assert(pd_ckpt_same(&f.name, &g.name)); /* the same set is the same file */
    free(f.p), free(g.p);
    end(&s), end(&plain);
}
END_TEST

/* Begin at the file's marks, as a newcomer does. */
static void begin_at(side *s, const made *f) {
    pd_ckpt c;
    pd_ckpt_log e;
    ck_ok(pd_ledger_open(&s->l));
    ck_ok(pd_replica_open(&manifest, &s->r));
    ck_ok(pd_ckpt_open(f->p, f->n, run, &c));
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);) {
        uint32_t i;
        ck_ok(pd_ledger_author(s->l, &e.author, &i));
        ck_ok(pd_ledger_begin_at(s->l, i, pd_ckpt_base(e.chain.n), e.chain.c, e.chain.tail,
                                 (size_t)(e.chain.n % 1024), e.seal));
    }
    ck_ok(pd_ckpt_restore(f->p, f->n, &s->r, s->l));
}

static void fill(side *s, int i, uint64_t base) {
    ck_ok(pd_ledger_prefix_add(s->l, index_of(s->l, i), 0, bytes[i], (size_t)base));
    ck_ok(pd_ledger_prefix_end(s->l, index_of(s->l, i), true));
}

/* A newcomer's model has to follow what comes after its checkpoint exactly, say that it cannot take
 * back what it does not hold instead of folding something else, and be able to begin anew once all
 * is there.
 */
START_TEST(a_replica_goes_on_from_a_checkpoint) {
    side s, n;
    uint64_t folded;
    int32_t want[D], is[D];
    uint8_t dw[PD_DIGEST_BYTES], di[PD_DIGEST_BYTES];
    begin(&s, 2500, 1024, 7);
    made f = make(&s);
    begin_at(&n, &f);
    for (int i = 0; i < 2; i++) {
        say(s.l, i, 3000);
        say(n.l, i, 3000);
    }
    follow(&s), follow(&n);
    pd_replica_sealed(&s.r, want, dw);
    pd_replica_sealed(&n.r, is, di);
    ck_assert_mem_eq(dw, di, sizeof dw);
    ck_assert_uint_eq(pd_ledger_lacking(n.l), 2048 + 1024);
    uint8_t b[8];
    ck_assert_uint_eq(pd_ledger_read(n.l, index_of(n.l, 0), 0, 2047, b, 8), 0);
    ck_assert_uint_eq(pd_ledger_read(n.l, index_of(n.l, 0), 0, 2048, b, 8), 8);
    ck_assert_mem_eq(b, bytes[0] + 2048, 8);

    pd_ledger_void(n.l, index_of(n.l, 0), 2100); /* behind the base: taken back exactly */
    pd_ledger_void(s.l, index_of(s.l, 0), 2100);
    follow(&s), follow(&n);
    pd_replica_sealed(&s.r, want, dw);
    pd_replica_sealed(&n.r, is, di);
    ck_assert_mem_eq(dw, di, sizeof dw);

    pd_ledger_void(n.l, index_of(n.l, 0), 100); /* before it */
    pd_ledger_void(s.l, index_of(s.l, 0), 100);
    ck_assert_int_eq(pd_replica_follow(&n.r, n.l, UINT64_MAX, &folded), PD_ENOENT);
    fill(&n, 0, 2048);
    fill(&n, 1, 1024);
    ck_assert_uint_eq(pd_ledger_lacking(n.l), 0);
    pd_replica_reset(&n.r);
    follow(&s), follow(&n);
    pd_replica_sealed(&s.r, want, dw);
    pd_replica_sealed(&n.r, is, di);
    ck_assert_mem_eq(dw, di, sizeof dw);
    free(f.p);
    end(&s), end(&n);
}
END_TEST

/* A node that rests on others' word must not lend it weight. */
START_TEST(who_has_not_audited_makes_and_vouches_for_none) {
    side s, n;
    begin(&s, 2500, 1024, 7);
    made f = make(&s), g;
    begin_at(&n, &f);
    ck_assert_int_eq(pd_ckpt_make(&n.r, n.l, &g.p, &g.n, &g.name), PD_EAGAIN);
    ck_assert_int_eq(check(&f, &n, UINT64_MAX), PD_CKPT_UNKNOWN);
    fill(&n, 0, 2048);
    fill(&n, 1, 1024);
    g = make(&n);
    ck_assert(pd_ckpt_same(&f.name, &g.name));
    free(f.p), free(g.p);
    end(&s), end(&n);
}
END_TEST

/* Bytes that come wrong, in disorder or too many must leave the ledger as it is. */
START_TEST(a_prefix_is_taken_whole_or_not) {
    side s, n;
    begin(&s, 2500, 1024, 7);
    made f = make(&s);
    begin_at(&n, &f);
    uint32_t i = index_of(n.l, 0);
    ck_assert_int_eq(pd_ledger_prefix_add(n.l, i, 1, bytes[0], 5), PD_EMISMATCH);
    ck_assert_int_eq(pd_ledger_prefix_add(n.l, i, 0, bytes[0], 2049), PD_EMISMATCH);
    ck_ok(pd_ledger_prefix_add(n.l, i, 0, bytes[0], 1000));
    ck_assert_uint_eq(pd_ledger_lacking(n.l), 2048 - 1000 + 1024);
    ck_assert_int_eq(pd_ledger_prefix_end(n.l, i, true), PD_EMISMATCH);
    ck_ok(pd_ledger_prefix_end(n.l, i, false));
    ck_assert_uint_eq(pd_ledger_lacking(n.l), 2048 + 1024);
    say(n.l, 0, 2600); /* it goes on growing meanwhile */
    fill(&n, 0, 2048);
    uint8_t all[2600];
    ck_assert_uint_eq(pd_ledger_read(n.l, i, 0, 0, all, sizeof all), sizeof all);
    ck_assert_mem_eq(all, bytes[0], sizeof all);
    free(f.p);
    end(&s), end(&n);
}
END_TEST

/* ---- in the store ---- */

static pd_store *open_store(bool create) {
    pd_store *s;
    ck_ok(pd_store_open(dir, create, run, &s));
    return s;
}

static void keep(pd_store *st, pd_ledger *l) {
    for (bool behind = true; behind;)
        ck_ok(pd_store_follow(st, l, &behind));
    ck_ok(pd_store_commit(st));
}

static void expect_log(int i, uint64_t base, uint64_t n) {
    pd_store *st = open_store(false);
    pd_store_report report;
    pd_ledger *l;
    pd_log_info info;
    uint8_t b[ROOM];
    ck_ok(pd_ledger_open(&l));
    ck_ok(pd_store_load(st, NULL, l, &report));
    ck_assert_uint_eq(report.cut, 0);
    ck_assert(pd_ledger_info(l, index_of(l, i), &info));
    ck_assert_uint_eq(info.base, base);
    ck_assert_uint_eq(info.n[0], n);
    ck_assert_uint_eq(pd_ledger_read(l, index_of(l, i), 0, base, b, sizeof b), n - base);
    ck_assert_mem_eq(b, bytes[i] + base, n - base);
    pd_ledger_close(l);
    pd_store_close(st);
}

/* A restart must find a log that begins at a mark, with what came after it, and whole once it was
 * filled. */
START_TEST(the_store_keeps_a_log_from_its_base_on) {
    side s, n;
    begin(&s, 2500, 1024, 7);
    made f = make(&s);
    begin_at(&n, &f);
    pd_store *st = open_store(true);
    keep(st, n.l);
    say(n.l, 0, 3500);
    keep(st, n.l);
    pd_store_close(st);
    expect_log(0, 2048, 3500);
    expect_log(1, 1024, 1024);
    expect_log(2, 0, 7);
    st = open_store(false);
    pd_author a = author(0);
    bytes[0][5] ^= 1;
    ck_assert_int_eq(pd_store_fill(st, &a, bytes[0], 2048), PD_EMISMATCH);
    bytes[0][5] ^= 1;
    fill(&n, 0, 2048);
    keep(st, n.l);
    pd_store_close(st);
    expect_log(0, 0, 3500);
    expect_log(1, 1024, 1024);
    free(f.p);
    end(&s), end(&n);
}
END_TEST

/* One statement on the database of a store that is not open. */
static void do_sql(const char *statement) {
    char path[64];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/ledger.db", dir);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, statement, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* The last two files are there for newcomers; what a node began with must outlive them. */
START_TEST(the_store_keeps_two_files_and_what_was_begun_with) {
    pd_store *st = open_store(true);
    pd_store_begun b = {PD_AUDIT_OPEN, {1, 2}, 3, 77}, back;
    uint8_t digest[3][32], is[32], *p;
    size_t n;
    ck_ok(pd_store_begun_get(st, &back));
    ck_assert_int_eq(back.state, PD_AUDIT_NONE);
    ck_ok(pd_store_begun_set(st, &b));
    for (int i = 0; i < 3; i++) {
        pd_hash256(bytes[i], 100, digest[i]);
        ck_ok(pd_store_shared_put(st, digest[i], bytes[i], 100));
        ck_ok(
            pd_store_shared_put(st, digest[i], bytes[i], 100)); /* the same again changes nothing */
    }
    ck_ok(pd_store_commit(st));
    pd_store_close(st);
    st = open_store(false);
    for (unsigned i = 0; i < 2; i++) {
        ck_ok(pd_store_shared_get(st, i, is, &p, &n));
        ck_assert_mem_eq(is, digest[2 - i], 32);
        ck_assert_mem_eq(p, bytes[2 - i], 100);
        free(p);
    }
    ck_assert_int_eq(pd_store_shared_get(st, 2, is, &p, &n), PD_ENOENT);
    ck_assert_int_eq(pd_store_file_get(st, digest[0], &p, &n), PD_ENOENT);
    pd_store_close(st); /* what is damaged is another thing than what there never was */
    do_sql("UPDATE file SET bytes = substr(bytes, 1, 99) WHERE rowid = "
           "(SELECT max(rowid) FROM file)");
    st = open_store(false);
    ck_assert_int_eq(pd_store_shared_get(st, 0, is, &p, &n), PD_EMISMATCH);
    ck_ok(pd_store_shared_get(st, 1, is, &p, &n));
    free(p);
    ck_ok(pd_store_shared_put(st, digest[2], bytes[2], 100));
    ck_ok(pd_store_begun_get(st, &back));
    ck_assert(back.state == b.state && back.voices == 3 && back.records == 77 &&
              !memcmp(back.digest, b.digest, 32));

    memcpy(b.digest, digest[0],
           32); /* right: it is served; wrong: it is gone, and what was built on it */
    ck_ok(pd_store_file_put(st, digest[0], bytes[0], 100));
    ck_ok(pd_store_begun_set(st, &b));
    b.state = PD_AUDIT_EQUAL;
    ck_ok(pd_store_begun_set(st, &b));
    ck_ok(pd_store_shared_get(st, 0, is, &p, &n));
    ck_assert_mem_eq(is, digest[0], 32);
    free(p);
    int32_t a[D] = {1}, got[D];
    uint8_t model[PD_DIGEST_BYTES];
    pd_author who = author(0);
    uint32_t count;
    pd_replay_digest(a, D, model);
    ck_ok(pd_store_ckpt_put(st, model, a, D, &who, &(uint64_t){1}, 1));
    memcpy(b.digest, digest[2], 32);
    b.state = PD_AUDIT_OPEN;
    ck_ok(pd_store_file_put(st, digest[2], bytes[2], 100));
    ck_ok(pd_store_begun_set(st, &b));
    b.state = PD_AUDIT_DIFFERS;
    ck_ok(pd_store_begun_set(st, &b));
    ck_assert_int_eq(pd_store_ckpt_get(st, got, D, &who, &(uint64_t){0}, 1, &count), PD_ENOENT);
    ck_assert_int_eq(pd_store_file_get(st, digest[2], &p, &n), PD_ENOENT);
    pd_store_close(st);
}
END_TEST

/* Folders of the version before have to go on without anybody's doing. */
START_TEST(a_store_of_format_1_is_brought_up) {
    side s;
    begin(&s, 2500, 0, 0);
    pd_store *st = open_store(true);
    keep(st, s.l);
    pd_store_close(st);
    do_sql("ALTER TABLE log DROP COLUMN mark; PRAGMA user_version = 1;");
    expect_log(0, 0, 2500);
    expect_log(0, 0, 2500);
    end(&s);
}
END_TEST

/* ---- whose word counts ---- */

typedef struct log_of { /* a control log, as its author writes it */
    uint8_t p[2048];
    size_t n;
} log_of;

static log_of control[KEYS];

static void write_record(int who, const pd_control *rec) {
    pd_writer w = pd_writer_of(control[who].p + control[who].n, sizeof control->p - control[who].n);
    ck_assert(pd_control_put(&w, rec));
    control[who].n = (size_t)(w.p - control[who].p);
}

static void invite(int who, int guest) {
    pd_control rec = {.kind = PD_RECORD_MEMBER, .invite = 1};
    memcpy(rec.subject, id[guest].pub, 32);
    write_record(who, &rec);
}

static void attest(int who, const pd_ckpt_name *name) {
    write_record(who, &(pd_control){.kind = PD_RECORD_CKPT, .ckpt = *name});
}

static int self; /* whose core it is */

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    (void)ctx;
    pd_sign(&id[self], msg, n, sig);
}
static uint64_t chance(void *ctx) {
    static uint64_t x;
    (void)ctx;
    return x += 7;
}
static uint64_t log_base(void *ctx, const pd_author *a, uint8_t mark[32]) {
    uint32_t i;
    pd_log_info info;
    if (!pd_ledger_find(ctx, a, &i) || !pd_ledger_info(ctx, i, &info))
        return 0;
    memcpy(mark, info.mark, 32);
    return info.base;
}

typedef struct newcomer {
    pd_ledger *l;
    pd_core *core;
    void *arena;
} newcomer;

static newcomer open_as(int who, pd_core_conf conf) {
    newcomer n;
    ck_ok(pd_ledger_open(&n.l));
    self = who;
    for (int i = 0; i < KEYS; i++) {
        uint8_t seal[64];
        if (!control[i].n)
            continue;
        seal_of(i, PD_STREAM_CONTROL, control[i].p, control[i].n, seal);
        ck_ok(pd_ledger_append(n.l, index_of(n.l, i), PD_STREAM_CONTROL, 0, control[i].p,
                               control[i].n, seal));
    }
    pd_core_crypto crypto = {NULL, sign, verify, chance};
    pd_core_log log = {.ctx = n.l, .seal = port_seal, .read = port_read, .base = log_base};
    memcpy(conf.run, run, 32);
    memcpy(conf.key, id[who].pub, 32);
    memcpy(conf.founder, id[0].pub, 32);
    size_t size = (pd_core_bytes(&conf) + 63) / 64 * 64;
    n.arena = aligned_alloc(64, size);
    ck_ok(pd_core_open(&conf, &crypto, &log, 1, n.arena, size, &n.core));
    return n;
}

static newcomer come(int who) {
    return open_as(who, (pd_core_conf){.hold = true});
}

static void gone(newcomer *n) {
    pd_ledger_close(n->l);
    free(n->arena);
}

/* What the core says to the file; the reason in *why. */
static pd_err install(newcomer *n, const made *f, const char **why) {
    static pd_action acts[PD_ACTIONS_MAX];
    pd_event e = {.kind = PD_EV_INSTALL, .p = f->p, .n = f->n};
    size_t k = pd_core_step(n->core, 10, &e, acts, PD_ACTIONS_MAX);
    for (size_t i = 0; i < k; i++)
        if (acts[i].kind == PD_ACT_INSTALLED) {
            *why = acts[i].text;
            return (pd_err)acts[i].at;
        }
    ck_abort_msg("no answer");
    return PD_EUSAGE;
}

/* Enough for a newcomer `who`, when these attest? */
static bool enough(int who, const pd_ckpt_name *name, const int *by, int count) {
    log_of before[KEYS];
    memcpy(before, control, sizeof control);
    for (int i = 0; i < count; i++)
        attest(by[i], name);
    newcomer n = come(who);
    pd_core_ckpt_status s = {.enough = false};
    bool there = pd_core_ckpt(n.core, 0, &s);
    ck_assert(there == (count > 0));
    gone(&n);
    memcpy(control, before, sizeof control);
    return s.enough;
}

/* One person can invite any number of keys: if these counted each, three of them would make up a
 * model. */
START_TEST(three_voices_are_three_people) {
    pd_ckpt_name name = {.file = {1}, .size = 10, .records = 5};
    memset(control, 0, sizeof control);
    invite(0, 1), invite(0, 2), invite(0, 3); /* the founder's own: each a voice */
    invite(1, 4), invite(1, 5), invite(1, 6); /* 1's: one voice together */
    invite(2, 7), invite(0, 9);               /* 9 comes */
    ck_assert(!enough(9, &name, (int[]){4, 5, 6}, 3));
    ck_assert(!enough(9, &name, (int[]){1, 4, 5, 6}, 4)); /* 1 itself and one of its own: two */
    ck_assert(enough(9, &name, (int[]){4, 7, 3}, 3));
    ck_assert(enough(9, &name, (int[]){1, 2, 3}, 3));
    ck_assert(enough(9, &name, (int[]){0, 1, 4}, 3));
    ck_assert(!enough(9, &name, (int[]){0, 1}, 2));
    ck_assert(!enough(9, &name, (int[]){9, 1, 2}, 3)); /* its own word is none */
    pd_control ban = {.kind = PD_RECORD_BAN, .control = 1 << 20};
    memcpy(ban.subject, id[3].pub, 32);
    write_record(0, &ban);
    ck_assert(!enough(9, &name, (int[]){4, 7, 3}, 3)); /* nor is that of who is banned */
}
END_TEST

/* In a run of two or three nobody could ever begin with one, or any single member could lie to it.
 */
START_TEST(of_fewer_than_three_others_all_must_attest) {
    pd_ckpt_name name = {.file = {1}, .size = 10, .records = 5};
    memset(control, 0, sizeof control);
    invite(0, 1), invite(0, 9);
    ck_assert(!enough(9, &name, (int[]){0}, 1));
    ck_assert(!enough(9, &name, (int[]){1}, 1));
    ck_assert(enough(9, &name, (int[]){0, 1}, 2));
    invite(0, 2);
    ck_assert(!enough(9, &name, (int[]){0, 1}, 2));
    ck_assert(enough(9, &name, (int[]){0, 1, 2}, 3));
}
END_TEST

/* Whoever attests it, a mark that its author did not seal is no place in that author's log, and who
 * is no member has none; a file that nobody attests does not get so far.  A good one is begun with.
 */
START_TEST(a_core_begins_at_proven_marks_only) {
    const char *why;
    side s;
    pd_ckpt c;
    memset(control, 0, sizeof control);
    invite(0, 1), invite(0, 2), invite(0, 9);
    begin(&s, 2500, 1024, 7);
    made f = make(&s), bad = f;
    log_of before[KEYS];
    memcpy(before, control, sizeof control);
    newcomer n = come(9);
    ck_assert_int_eq(install(&n, &f, &why), PD_EAUTH);
    gone(&n);

    bad.p = malloc(f.n);
    memcpy(bad.p, f.p, f.n);
    ck_ok(pd_ckpt_open(bad.p, bad.n, run, &c));
    bad.p[c.entries - bad.p + 32 + 1 + 2] ^= 1; /* C_j of the first */
    pd_hash256(bad.p, bad.n, bad.name.file);
    for (int i = 0; i < 3; i++)
        attest(i, &bad.name);
    n = come(9);
    ck_assert_int_eq(install(&n, &bad, &why), PD_EMISMATCH);
    ck_assert_str_eq(why, "a mark in it is not what its author has sealed");
    gone(&n);
    memcpy(control, before, sizeof control);

    for (int i = 0; i < 3; i++)
        attest(i, &f.name);
    n = come(9);
    ck_assert_int_eq(install(&n, &bad, &why), PD_EAUTH); /* another file of the same size */
    ck_assert_int_eq(install(&n, &f, &why), PD_OK);
    char broken[128];
    ck_ok(pd_ckpt_open(f.p, f.n, run, &c));
    pd_ckpt_log e;
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);) {
        uint32_t i;
        ck_ok(pd_ledger_author(n.l, &e.author, &i));
        ck_ok(pd_ledger_begin_at(n.l, i, pd_ckpt_base(e.chain.n), e.chain.c, e.chain.tail,
                                 (size_t)(e.chain.n % 1024), e.seal));
    }
    static pd_action acts[PD_ACTIONS_MAX];
    pd_event tick = {.kind = PD_EV_TICK};
    pd_core_step(n.core, 20, &tick, acts, PD_ACTIONS_MAX);
    ck_assert_msg(pd_core_check(n.core, broken, sizeof broken), "%s", broken);
    pd_core_status status;
    pd_core_status_get(n.core, 20, &status);
    ck_assert_uint_eq(status.records, 2500 + 1024 + 7);
    gone(&n);
    free(f.p), free(bad.p);
    end(&s);
}
END_TEST

/* Seconds from its start until this member's turn comes, and from then to the next time. */
static void turns(int who, uint64_t *first, uint64_t *again) {
    static pd_action acts[PD_ACTIONS_MAX];
    pd_event tick = {.kind = PD_EV_TICK};
    newcomer n = open_as(who, (pd_core_conf){.solo = true, .ckpt_ms = 30000});
    *first = *again = 0;
    for (uint64_t s = 1; s < 2000 && !*again; s++) {
        size_t k = pd_core_step(n.core, 1000 * s, &tick, acts, PD_ACTIONS_MAX);
        for (size_t i = 0; i < k; i++)
            if (acts[i].kind == PD_ACT_CKPT_DUE)
                *(*first ? again : first) = s - *first;
    }
    gone(&n);
}

/* If nobody's turn came there would be no checkpoints; if everybody's came at once, as many as
 * members. */
START_TEST(one_member_at_a_time_has_its_turn) {
    uint64_t first[3], again;
    unsigned at[3] = {0};
    memset(control, 0, sizeof control);
    invite(0, 1), invite(0, 2);
    for (int i = 0; i < 3; i++) {
        turns(i, &first[i], &again);
        ck_assert(again >= 600 && again <= 601); /* nothing came of it: once more, not sooner */
        for (unsigned rank = 0; rank < 3; rank++)
            at[rank] += first[i] >= 30 + 60 * rank && first[i] <= 31 + 60 * rank;
    }
    ck_assert(at[0] == 1 && at[1] == 1 && at[2] == 1);
}
END_TEST

static void add_tests(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_file_says_what_its_maker_holds);
    tcase_add_test(tc, others_reproduce_it_from_wherever_they_stand);
    tcase_add_test(tc, what_is_made_up_is_found);
    tcase_add_test(tc, a_log_with_void_records_is_left_out);
    tcase_add_test(tc, a_replica_goes_on_from_a_checkpoint);
    tcase_add_test(tc, who_has_not_audited_makes_and_vouches_for_none);
    tcase_add_test(tc, a_prefix_is_taken_whole_or_not);
    tcase_add_test(tc, the_store_keeps_a_log_from_its_base_on);
    tcase_add_test(tc, the_store_keeps_two_files_and_what_was_begun_with);
    tcase_add_test(tc, a_store_of_format_1_is_brought_up);
    tcase_add_test(tc, three_voices_are_three_people);
    tcase_add_test(tc, of_fewer_than_three_others_all_must_attest);
    tcase_add_test(tc, a_core_begins_at_proven_marks_only);
    tcase_add_test(tc, one_member_at_a_time_has_its_turn);
}

PD_TEST_MAIN("ckpt", 60)
