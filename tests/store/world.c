/* world.c - the node and its judge; see world.h. */
#include "world.h"

#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/replay.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char dir[] = DISK_DIR;
static const uint8_t run[32] = {42};
static pd_identity me, other[OTHERS];
static uint8_t others_log[OTHERS][LOG_BYTES], basis[BASIS_BYTES], basis_digest[32];

static void fill(uint8_t *p, size_t n, uint32_t x) {
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
}

void world_init(void) {
    pd_identity_from_seed((const uint8_t[32]){1}, &me);
    for (uint32_t i = 0; i < OTHERS; i++) {
        pd_identity_from_seed((const uint8_t[32]){2, (uint8_t)i}, &other[i]);
        fill(others_log[i], LOG_BYTES, 100 + i);
    }
    fill(basis, sizeof basis, 7);
    pd_hash256(basis, sizeof basis, basis_digest);
}

void world_new(world *w) {
    memset(w, 0, sizeof *w);
    w->clock = 1;
}

void world_fail(world *w, const char *fmt, ...) {
    if (*w->failure)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->failure, sizeof w->failure, fmt, ap);
    va_end(ap);
}

/* ---- errors ---- */

/* An error on a failing disk says which file and what happened, and never blames the data. */
static void check_error(world *w, const char *what, pd_err e) {
    const char *text = pd_fail_text();
    if (w->healthy)
        world_fail(w, "%s fails on a healthy disk: %s", what, text);
    else if (e != PD_EIO && e != PD_EFULL)
        world_fail(w, "%s: a failing disk is told as: %s (%s)", what, pd_err_text(e), text);
    else if (!strstr(text, dir))
        world_fail(w, "%s: the error names no file: %s", what, text);
    else if (e == PD_EFULL && !strstr(text, "space"))
        world_fail(w, "%s: a full disk is told as: %s", what, text);
}

/* Did it work?  If not, an own failure of this kind may end the process. */
static bool worked(world *w, const char *what, pd_err e, bool own) {
    if (!e)
        return true;
    check_error(w, what, e);
    if (own && e == PD_EIO)
        w->ended = true;
    return false;
}

static bool commit(world *w, const char *what, bool own) {
    return worked(w, what, pd_store_commit(w->store), own);
}

static bool runs(const world *w) {
    return w->store && !w->ended;
}

/* ---- start and end ---- */

static pd_author author_of(const uint8_t key[32], uint32_t inc) {
    pd_author a = {.inc = inc};
    memcpy(a.key, key, 32);
    return a;
}

static void seal_of(const pd_identity *id, uint32_t inc, uint8_t stream, const uint8_t *bytes,
                    size_t n, uint8_t seal[64]) {
    pd_author a = author_of(id->pub, inc);
    pd_chain c;
    uint8_t message[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&c, run, &a, stream);
    pd_chain_add(&c, bytes, n);
    pd_seal_message(&c, run, &a, stream, message);
    pd_sign(id, message, sizeof message, seal);
}

static void drop(world *w) {
    pd_ledger_close(w->ledger);
    w->ledger = NULL;
    w->store = NULL;
}

void node_kill(world *w) {
    if (!w->store)
        return;
    disk_freeze(true);
    pd_store_close(w->store);
    drop(w);
    disk_freeze(false);
}

void node_close(world *w) {
    if (runs(w)) {
        pd_store_close(w->store);
        drop(w);
    }
}

/* Own bytes that a start finds will be said: from now on the world holds the node to them. */
static void compare_own(world *w, uint32_t inc, uint8_t stream) {
    static uint8_t held[LOG_BYTES + 1];
    own_log *o = &w->own[inc][stream];
    pd_author a = author_of(me.pub, inc);
    uint32_t index;
    size_t n = pd_ledger_find(w->ledger, &a, &index)
                   ? pd_ledger_read(w->ledger, index, stream, 0, held, sizeof held)
                   : 0;
    if (w->own_rot && n == 0) { /* damaged and cut: the node goes on as its next incarnation */
        o->said = o->tried = 0;
        return;
    }
    if (n < o->said)
        world_fail(w, "S3: %zu own bytes were acknowledged, a start finds %zu", o->said, n);
    else if (n > o->tried)
        world_fail(w, "S4: a start finds %zu own bytes, %zu were ever made", n, o->tried);
    else if (memcmp(held, o->bytes, n) != 0)
        world_fail(w, "S1: a start finds other bytes than the world has heard");
    o->said = o->tried = n;
}

static void compare_others(world *w) {
    static uint8_t held[LOG_BYTES + 1];
    for (uint32_t i = 0; i < OTHERS; i++) {
        pd_author a = author_of(other[i].pub, 0);
        uint32_t index;
        if (!pd_ledger_find(w->ledger, &a, &index))
            continue;
        pd_log_info info = {0};
        pd_ledger_info(w->ledger, index, &info);
        size_t n = pd_ledger_read(w->ledger, index, 0, info.base, held, sizeof held);
        if (info.base + n > LOG_BYTES || memcmp(held, others_log[i] + info.base, n) != 0)
            world_fail(w, "S4: a log of somebody else has other bytes than its author gave");
    }
}

static bool load_incarnation(world *w) {
    uint8_t *v = NULL;
    size_t n = 0;
    pd_err e = pd_store_meta_get(w->store, "incarnation", &v, &n);
    if (e && e != PD_ENOENT)
        return worked(w, "incarnation", e, false);
    w->inc = e ? 0 : n == 4 ? pd_load32(v) : 99;
    free(v);
    if (w->inc < w->durable_inc || w->inc >= INCARNATIONS)
        world_fail(w, "S3: incarnation %u was acknowledged, a start finds %u", w->durable_inc,
                   w->inc);
    w->durable_inc = w->inc;
    return true;
}

/* What a start reads, and what it makes of it. */
static bool load(world *w) {
    pd_store_report report;
    if (!load_incarnation(w))
        return false;
    if (!worked(w, "load", pd_store_load(w->store, me.pub, w->ledger, &report), false))
        return false;
    if (report.cut && !w->rot)
        world_fail(w, "S3: %u logs were damaged by a loss of power", report.cut);
    for (uint32_t inc = 0; inc < INCARNATIONS; inc++)
        for (uint8_t stream = 0; stream < PD_STREAMS; stream++)
            compare_own(w, inc, stream);
    compare_others(w);
    for (uint32_t inc = w->inc + 1; inc < INCARNATIONS; inc++)
        if (w->own[inc][0].said || w->own[inc][1].said)
            world_fail(w, "S1: own bytes of incarnation %u, and the node thinks it is %u", inc,
                       w->inc);
    if (report.own_cut)
        node_incarnate(w);
    return true;
}

void node_start(world *w, bool create) {
    node_kill(w); /* one that ended itself, or could not start */
    w->life++;
    w->ended = false;
    if (!worked(w, "open", pd_store_open(dir, create, create ? run : NULL, &w->store), false)) {
        w->store = NULL;
        w->ended = true;
        return;
    }
    w->made = true;
    if (pd_ledger_open(&w->ledger) || !load(w))
        w->ended = true;
}

/* ---- work ---- */

void node_make(world *w) {
    if (!runs(w))
        return;
    static const char text[] = "format = 1\n";
    bool ok =
        worked(w, "manifest", pd_store_meta_set(w->store, "manifest", text, sizeof text), true);
    if (ok)
        ok = worked(w, "basis", pd_store_file_put(w->store, basis_digest, basis, sizeof basis),
                    true);
    if (ok && commit(w, "basis", true))
        w->has_file = true;
}

void node_say(world *w, uint8_t stream, size_t n) {
    if (!runs(w))
        return;
    own_log *o = &w->own[w->inc][stream];
    pd_author a = author_of(me.pub, w->inc);
    uint8_t seal[64];
    uint32_t index;
    assert(o->tried + n <= LOG_BYTES);
    fill(o->bytes + o->tried, n,
         w->life * 1000003u + (uint32_t)o->tried); /* never the same twice */
    o->tried += n;
    seal_of(&me, w->inc, stream, o->bytes, o->tried, seal);
    bool ok = worked(w, "append",
                     pd_store_append(w->store, &a, stream, o->said, o->bytes + o->said,
                                     o->tried - o->said, seal),
                     true);
    if (!ok || !commit(w, "commit", true))
        return;
    if (pd_ledger_author(w->ledger, &a, &index) ||
        pd_ledger_append(w->ledger, index, stream, o->said, o->bytes + o->said, o->tried - o->said,
                         seal))
        world_fail(w, "the ledger: %s", pd_fail_text());
    o->said = o->tried;
}

static void follow(world *w) {
    bool behind = true;
    while (behind && runs(w))
        if (!worked(w, "follow", pd_store_follow(w->store, w->ledger, &behind), false) ||
            !commit(w, "follow", false))
            break;
}

void node_hear(world *w, size_t each) {
    if (!runs(w))
        return;
    for (uint32_t i = 0; i < OTHERS; i++) {
        pd_author a = author_of(other[i].pub, 0);
        pd_log_info info = {0};
        uint32_t index;
        uint8_t seal[64];
        seal_of(&other[i], 0, 0, others_log[i], each, seal);
        if (pd_ledger_author(w->ledger, &a, &index) || !pd_ledger_info(w->ledger, index, &info) ||
            pd_ledger_append(w->ledger, index, 0, info.base, others_log[i] + info.base,
                             each - (size_t)info.base, seal))
            world_fail(w, "the ledger: %s", pd_fail_text());
    }
    follow(w);
}

/* Coordinates that tell which checkpoint they are. */
static void coords_of(uint32_t which, int32_t a[COORDS]) {
    fill((uint8_t *)a, COORDS * sizeof *a, which);
    a[0] = (int32_t)which;
}

static bool put_checkpoint(world *w) {
    static int32_t a[COORDS];
    pd_author authors[OTHERS + INCARNATIONS];
    uint64_t n[OTHERS + INCARNATIONS];
    uint8_t digest[PD_DIGEST_BYTES];
    uint32_t count = 0;
    pd_log_info info;
    for (uint32_t i = 0; i < pd_ledger_authors(w->ledger); i++)
        if (pd_ledger_info(w->ledger, i, &info)) {
            authors[count] = info.author;
            n[count++] = info.n[PD_STREAM_GRADIENTS];
        }
    coords_of(++w->ckpt, a);
    pd_replay_digest(a, COORDS, digest);
    return worked(w, "checkpoint",
                  pd_store_ckpt_put(w->store, digest, a, COORDS, authors, n, count), false);
}

void node_checkpoint(world *w) {
    if (!runs(w))
        return;
    bool behind = true;
    while (behind)
        if (!worked(w, "follow", pd_store_follow(w->store, w->ledger, &behind), false) ||
            !commit(w, "follow", false))
            return;
    if (put_checkpoint(w) && commit(w, "checkpoint", false))
        w->durable_ckpt = w->ckpt;
}

void node_maintain(world *w, uint64_t ms) {
    if (runs(w))
        (void)worked(w, "maintain", pd_store_maintain(w->store, w->clock += ms), false);
}

void node_incarnate(world *w) {
    if (!runs(w) || w->inc + 1 >= INCARNATIONS)
        return;
    uint8_t v[4];
    uint32_t next = w->inc + 1;
    pd_store32(v, next);
    /* The core speaks as the next one from this moment; what it says carries this with it, or fails
     * with it. */
    if (!worked(w, "incarnation", pd_store_meta_set(w->store, "incarnation", v, sizeof v), true))
        return;
    if (commit(w, "incarnation", true))
        w->inc = w->durable_inc = next;
}

void node_invite(world *w) {
    if (!runs(w))
        return;
    pd_invite v = {.id = w->life * 100u + w->invites, .secret = {9}, .uses = 1};
    if (!worked(w, "invite", pd_store_invite_add(w->store, &v), false) ||
        !commit(w, "invite", false))
        return;
    w->invites++;
    if (worked(w, "invite", pd_store_invite_use(w->store, v.id), false) &&
        commit(w, "invite", false))
        w->invites_used++;
}

void node_address(world *w) {
    if (!runs(w))
        return;
    pd_store_addr a = {.addr = {.family = 4, .ip = {10, 0, 0, 1}, .port = 7433}};
    memcpy(a.key, other[0].pub, 32);
    a.last_ok_s = (int64_t)w->clock;
    if (worked(w, "address", pd_store_addr_put(w->store, &a), false))
        (void)commit(w, "address", false);
}

void node_backup(world *w) {
    if (runs(w) && worked(w, "backup", pd_store_backup(w->store, DISK_DIR "/copy.db"), false))
        w->backup = true;
}

/* ---- beginning with a checkpoint ---- */

/* File number k of those that newcomers are given, 0 the one that this node began with. */
static void file_of(uint32_t k, uint8_t file[FILE_BYTES], uint8_t digest[32]) {
    fill(file, FILE_BYTES, 200 + k);
    pd_hash256(file, FILE_BYTES, digest);
}

static void say_begun(world *w, pd_audit_state state) {
    uint8_t file[FILE_BYTES];
    pd_store_begun b = {.state = state, .voices = 3, .records = OTHERS * MARK};
    file_of(0, file, b.digest);
    w->tried = state;
    if (state == PD_AUDIT_DIFFERS)
        w->durable_ckpt = 0; /* what was built on it goes with it */
    bool ok = state != PD_AUDIT_OPEN ||
              worked(w, "begun", pd_store_file_put(w->store, b.digest, file, sizeof file), false);
    if (ok && worked(w, "begun", pd_store_begun_set(w->store, &b), false) &&
        commit(w, "begun", false))
        w->begun = state;
}

void node_begin(world *w) {
    if (!runs(w))
        return;
    for (uint32_t i = 0; i < OTHERS; i++) {
        pd_author a = author_of(other[i].pub, 0);
        uint32_t index;
        uint8_t seal[64];
        pd_chain mark;
        pd_chain_init(&mark, run, &a, PD_STREAM_GRADIENTS);
        pd_chain_add(&mark, others_log[i], BASE);
        seal_of(&other[i], 0, PD_STREAM_GRADIENTS, others_log[i], MARK, seal);
        if (pd_ledger_author(w->ledger, &a, &index) ||
            pd_ledger_begin_at(w->ledger, index, BASE, mark.c, others_log[i] + BASE, MARK - BASE,
                               seal))
            world_fail(w, "the ledger: %s", pd_fail_text());
    }
    follow(w);
    if (runs(w))
        say_begun(w, PD_AUDIT_OPEN);
}

void node_fill(world *w) {
    if (!runs(w))
        return;
    for (uint32_t i = 0; i < OTHERS; i++) {
        pd_author a = author_of(other[i].pub, 0);
        pd_log_info info = {0};
        uint32_t index;
        if (pd_ledger_find(w->ledger, &a, &index))
            pd_ledger_info(w->ledger, index, &info);
        if (info.base && (pd_ledger_prefix_add(w->ledger, index, 0, others_log[i], BASE) ||
                          pd_ledger_prefix_end(w->ledger, index, true)))
            world_fail(w, "the ledger: %s", pd_fail_text());
    }
    follow(w);
}

void node_audit(world *w, pd_audit_state state) {
    if (runs(w) && w->begun == PD_AUDIT_OPEN)
        say_begun(w, state);
}

void node_share(world *w) {
    uint8_t file[FILE_BYTES], digest[32];
    if (!runs(w))
        return;
    file_of(++w->shared, file, digest);
    if (worked(w, "share", pd_store_shared_put(w->store, digest, file, sizeof file), false) &&
        commit(w, "share", false))
        w->durable_shared = w->shared;
}

/* ---- the judge ---- */

/* What it began with is as it was acknowledged, or as it was about to be said; until it is proven
 * right its file is kept. */
static void judge_begun(world *w) {
    pd_store_begun b;
    uint8_t file[FILE_BYTES], digest[32], *p = NULL;
    size_t n = 0;
    if (pd_store_begun_get(w->store, &b))
        world_fail(w, "begun: %s", pd_fail_text());
    else if (b.state != w->begun && b.state != w->tried)
        world_fail(w, "what it began with was acknowledged as %d, a start finds %d", (int)w->begun,
                   (int)b.state);
    w->begun = w->tried = b.state;
    if (b.state != PD_AUDIT_OPEN)
        return;
    file_of(0, file, digest);
    if (memcmp(b.digest, digest, 32) != 0 || pd_store_file_get(w->store, digest, &p, &n) ||
        n != sizeof file || memcmp(p, file, n) != 0)
        world_fail(w, "the checkpoint that it began with is not there: %s", pd_fail_text());
    free(p);
}

/* The newest two that were acknowledged are there, or newer ones; what it began with counts, too,
 * once it was proven right. */
static void judge_shared(world *w) {
    uint32_t kept = w->durable_shared + (w->begun == PD_AUDIT_EQUAL);
    for (unsigned i = 0; i < 2 && i < kept; i++) {
        uint8_t file[FILE_BYTES], want[32], is[32], *p = NULL;
        size_t n = 0;
        if (pd_store_shared_get(w->store, i, is, &p, &n)) {
            world_fail(w, "checkpoint file %u for newcomers is not there: %s", i, pd_fail_text());
            return;
        }
        bool known = false;
        for (uint32_t k = 0; k <= w->shared && !known; k++) {
            file_of(k, file, want);
            known = n == sizeof file && !memcmp(is, want, 32) && !memcmp(p, file, n) &&
                    (i > 0 || k == 0 || k >= w->durable_shared);
        }
        if (!known)
            world_fail(w, "checkpoint file %u for newcomers is another one", i);
        free(p);
    }
}

static void judge_checkpoint(world *w) {
    static int32_t a[COORDS], want[COORDS];
    pd_author authors[8];
    uint64_t n[8];
    uint32_t count = 0, index;
    pd_err e = pd_store_ckpt_get(w->store, a, COORDS, authors, n, 8, &count);
    uint32_t which = e ? 0 : (uint32_t)a[0];
    if (e && e != PD_ENOENT)
        world_fail(w, "checkpoint: %s", pd_fail_text());
    if (which < w->durable_ckpt || which > w->ckpt)
        world_fail(w, "checkpoint %u was acknowledged, %u is there", w->durable_ckpt, which);
    if (!which)
        return;
    coords_of(which, want);
    if (memcmp(a, want, sizeof a) != 0)
        world_fail(w, "S5: checkpoint %u has other coordinates", which);
    for (uint32_t i = 0; i < count && !w->rot; i++) {
        pd_log_info info = {0};
        if (pd_ledger_find(w->ledger, &authors[i], &index))
            pd_ledger_info(w->ledger, index, &info);
        if (n[i] > info.n[PD_STREAM_GRADIENTS])
            world_fail(w, "S6: the checkpoint holds %llu records of a log of %llu",
                       (unsigned long long)n[i], (unsigned long long)info.n[PD_STREAM_GRADIENTS]);
    }
}

static void judge_rest(world *w) {
    pd_invite list[16];
    size_t n = 0, used = 0;
    uint8_t *p = NULL;
    if (pd_store_invites(w->store, list, 16, &n))
        world_fail(w, "invites: %s", pd_fail_text());
    for (size_t i = 0; i < n; i++)
        used += list[i].uses == 0;
    if (n < w->invites || used < w->invites_used)
        world_fail(w, "%u invites, %u of them used, were acknowledged; there are %zu and %zu",
                   w->invites, w->invites_used, n, used);
    pd_err e = pd_store_file_get(w->store, basis_digest, &p, &n);
    if (e ? e != PD_ENOENT || w->has_file : n != BASIS_BYTES)
        world_fail(w, "the basis that was acknowledged is not there: %s",
                   e ? pd_fail_text() : "its size differs");
    free(p);
}

void world_judge(world *w) {
    bool made = w->made;
    w->healthy = true;
    node_start(w, !made);
    if (!w->store || w->ended) {
        world_fail(w, "a healthy disk, and the node does not start: %s", pd_fail_text());
        return;
    }
    /* A first start that was cut off between the token in the database and the one beside it cannot
     * be told from a copy without its token. */
    if (pd_store_restored(w->store) && made && !w->restored_may_be && !w->own_rot)
        world_fail(w, "the store takes itself for a restored one");
    judge_checkpoint(w);
    judge_rest(w);
    judge_begun(w);
    judge_shared(w);
}

static int first_text(void *out, int n, char **values, char **names) {
    (void)names;
    if (n && !*(char *)out)
        snprintf(out, 128, "%s", values[0] ? values[0] : "");
    return 0;
}

void world_integrity(world *w, const char *path) {
    sqlite3 *db = NULL;
    char said[128] = "";
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA foreign_key_check", NULL,
                          NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA integrity_check", first_text, said, NULL);
    if (rc != SQLITE_OK || strcmp(said, "ok") != 0)
        world_fail(w, "%s is not whole: %s", path, rc == SQLITE_OK ? said : sqlite3_errstr(rc));
    sqlite3_close(db);
}

void world_rot(world *w, bool own) {
    const uint8_t *needle = own ? w->own[0][0].bytes + 100 : others_log[0] + 1100;
    size_t n;
    const uint8_t *p = disk_bytes(DISK_DIR "/ledger.db", &n);
    uint8_t *damaged = malloc(n);
    bool found = false;
    memcpy(damaged, p, n);
    for (size_t i = 0; i + 32 <= n; i++)
        if (memcmp(p + i, needle, 32) == 0) {
            damaged[i + 16] ^= 0x10;
            found = true;
        }
    assert(found);
    disk_put(DISK_DIR "/ledger.db", damaged, n);
    free(damaged);
    w->rot = true;
    w->own_rot = own;
}
