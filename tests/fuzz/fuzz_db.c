/* fuzz_db.c - any file as the node's database: the store refuses it by name, or gives out only logs
 * that prove themselves, and can be written on.
 *
 * Input: kind 1 | ...  kind 0: the bytes are ledger.db.  1: changes of a sound ledger.db, 2: of a
 * sound database whose last commits are in the write-ahead log, in that; each change page 1 |
 * offset 2 | size 1 | bytes, a page of 4096.
 */
#include "fuzz.h"

#include "disk.h"
#include "peerd/log.h"
#include "peerd/replay.h"
#include "peerd/store.h"

#include <string.h>

static const uint8_t run[32] = {42};
static uint8_t text[5000];
static pd_identity me, other;
static disk_image *closed, *killed;

static void append(pd_store *s, const pd_identity *id, size_t from, size_t to) {
    pd_author a = {.inc = 0};
    pd_chain c;
    uint8_t message[PD_SEAL_MESSAGE_BYTES], seal[64];
    memcpy(a.key, id->pub, 32);
    pd_chain_init(&c, run, &a, 0);
    pd_chain_add(&c, text, to);
    pd_seal_message(&c, run, &a, 0, message);
    pd_sign(id, message, sizeof message, seal);
    (void)!pd_store_append(s, &a, 0, from, text + from, to - from, seal);
    (void)!pd_store_commit(s);
}

static void start(void) {
    pd_store *s;
    static int32_t a[50];
    pd_author who = {.inc = 0};
    uint8_t digest[16];
    pd_log_set(PD_LOG_ERROR);
    disk_register();
    FUZZ_CHECK(pd_crypto_init() == PD_OK);
    pd_identity_from_seed((const uint8_t[32]){1}, &me);
    pd_identity_from_seed((const uint8_t[32]){2}, &other);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i * 2654435761u >> 11);
    FUZZ_CHECK(pd_store_open(DISK_DIR, true, run, &s) == PD_OK);
    append(s, &me, 0, 1500);
    append(s, &other, 0, 2100);
    pd_replay_digest(a, 50, digest);
    memcpy(who.key, me.pub, 32);
    (void)!pd_store_ckpt_put(s, digest, a, 50, &who, &(uint64_t){1500}, 1);
    (void)!pd_store_meta_set(s, "manifest", "text", 4);
    (void)!pd_store_commit(s);
    pd_store_close(s);
    closed = disk_save();
    FUZZ_CHECK(pd_store_open(DISK_DIR, true, run, &s) == PD_OK);
    append(s, &me, 1500, 2600);
    append(s, &other, 2100, 4000);
    disk_freeze(true);
    pd_store_close(s);
    disk_freeze(false);
    killed = disk_save();
}

static void change(const char *path, fuzz_bytes *in) {
    size_t n;
    const uint8_t *p = disk_bytes(path, &n);
    uint8_t *copy = malloc(n);
    memcpy(copy, p, n);
    while (in->n) {
        size_t at = fuzz_take(in) * 4096u + fuzz_take16(in) % 4096, size = fuzz_take(in) % 32 + 1;
        for (size_t i = 0; i < size; i++, at++)
            copy[at % n] = (uint8_t)fuzz_take(in);
    }
    disk_put(path, copy, n);
    free(copy);
}

static void check_logs(pd_ledger *l) {
    static uint8_t held[sizeof text + 1];
    pd_log_info info;
    for (uint32_t i = 0; i < pd_ledger_authors(l); i++) {
        FUZZ_CHECK(pd_ledger_info(l, i, &info));
        size_t n = pd_ledger_read(l, i, 0, 0, held, sizeof held);
        FUZZ_CHECK(n <= sizeof text && memcmp(held, text, n) == 0); /* nobody can sign others */
    }
}

/* All that a node asks its store. */
static void use(pd_store *s) {
    pd_ledger *l;
    pd_store_report report;
    pd_invite invites[4];
    pd_store_addr addrs[4];
    static int32_t a[50];
    pd_author who[4];
    uint64_t ends[4];
    uint32_t count;
    uint8_t *v;
    size_t n;
    FUZZ_CHECK(pd_ledger_open(&l) == PD_OK);
    if (pd_store_load(s, me.pub, l, &report) == PD_OK)
        check_logs(l);
    (void)!pd_store_invites(s, invites, 4, &n);
    (void)!pd_store_addrs(s, addrs, 4, &n);
    (void)!pd_store_ckpt_get(s, a, 50, who, ends, 4, &count);
    if (pd_store_meta_get(s, "manifest", &v, &n) == PD_OK)
        free(v);
    append(s, &me, 0, 3000);
    append(s, &other, 0, 4500);
    (void)!pd_store_maintain(s, 1);
    (void)!pd_store_maintain(s, 70000);
    pd_ledger_close(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    pd_store *s;
    if (!closed)
        start();
    unsigned kind = fuzz_take(&in) % 3;
    disk_load(kind == 2 ? killed : closed);
    if (kind == 0)
        disk_put(DISK_DIR "/ledger.db", in.p, in.n);
    else
        change(kind == 1 ? DISK_DIR "/ledger.db" : DISK_DIR "/ledger.db-wal", &in);
    if (pd_store_open(DISK_DIR, false, NULL, &s) == PD_OK) {
        use(s);
        pd_store_close(s);
    }
    disk_clear();
    return 0;
}
