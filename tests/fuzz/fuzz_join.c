/* fuzz_join.c - what an inviter sends to a newcomer, and what its node then starts from: refused,
 * or the logs are of members, and a core opens on them and lives, or says why not.
 *
 * Input: switch 1 | bytes.  Switch even: the bytes are what follows the manifest in a welcome
 * (frame.h), sent in pieces of 8 (switch + 2) bytes.  Odd: (size 2 | frame) ...  Seals need only
 * name their key.
 */
#include "box.h"

#include "peerd/frame.h"
#include "peerd/identity.h"
#include "peerd/manifest.h"

#include <string.h>

enum { NEWCOMER = 2, SESSION = 1, WELCOME_ROOM = PD_MANIFEST_MAX + 8192 };

static box b;
static pd_join *join;
static char manifest[PD_MANIFEST_MAX];
static size_t manifest_bytes;
static bool joined;

static void ignore(box *of, const pd_action *a) {
    if (a->kind == PD_ACT_FATAL || a->kind == PD_ACT_STOPPED)
        of->core = NULL;
}

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    box_sign(((box *)ctx)->key, msg, n, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    (void)ctx, (void)msg, (void)n;
    return sig[0] == 'S' && sig[1] == pub[0];
}

static uint64_t draw(void *ctx) {
    return ((box *)ctx)->random++;
}

static void write_manifest(void) {
    pd_manifest m = {.space = PD_SPACE_LORA,
                     .rank = 1,
                     .alpha = 1,
                     .targets = 1,
                     .unit_bits = 26,
                     .n_coords = 8,
                     .eps = 1,
                     .scale = UINT64_C(1) << 34,
                     .lr = UINT64_C(1) << 31,
                     .seal_bytes_per_s = 1000,
                     .rate_max = 100,
                     .invites_max = 3,
                     .model_arch = "llama",
                     .model_name = "house"};
    box_key(0, m.founder);
    pd_manifest_write(&m, manifest, &manifest_bytes);
    FUZZ_CHECK(pd_manifest_read(manifest, manifest_bytes, &m) == PD_OK);
}

static void open_join(void) {
    static void *arena;
    static const pd_addr addr = {4, {10, 0, 0, 1}, 1};
    pd_core_crypto crypto = {&b, sign, verify, draw};
    pd_join_conf conf = {.addrs = &addr, .n_addrs = 1, .name = "n", .timeout_ms = 5000};
    uint8_t run[32];
    if (!arena) {
        arena = malloc(pd_join_bytes());
        write_manifest();
    }
    pd_hash256(manifest, manifest_bytes, run);
    memcpy(conf.net, run, 16);
    box_key(0, conf.inviter);
    memcpy(conf.key, b.key, 32);
    FUZZ_CHECK(pd_join_open(&conf, &crypto, b.now, arena, pd_join_bytes(), &join) == PD_OK);
}

static void store(const pd_action *a) {
    uint32_t i;
    FUZZ_CHECK(a->stream == PD_STREAM_CONTROL && a->at == 0);
    FUZZ_CHECK(pd_ledger_author(b.ledger, &a->author, &i) == PD_OK);
    FUZZ_CHECK(pd_ledger_append(b.ledger, i, a->stream, 0, a->p, a->n, a->seal) == PD_OK);
}

static void step(const pd_event *e) {
    static pd_action acts[PD_ACTIONS_MAX];
    size_t n = pd_join_step(join, b.now, e, acts, PD_ACTIONS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (acts[i].kind == PD_ACT_STORE)
            store(&acts[i]);
        if (acts[i].kind == PD_ACT_MANIFEST)
            FUZZ_CHECK(acts[i].n == manifest_bytes && !memcmp(acts[i].p, manifest, manifest_bytes));
        joined |= acts[i].kind == PD_ACT_JOINED;
    }
}

static void frame(const uint8_t *p, size_t n) {
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, p, n);
    step(&(pd_event){.kind = PD_EV_FRAME, .session = SESSION, .p = exact, .n = n});
    free(exact);
}

static void welcome(fuzz_bytes in, size_t piece) {
    static uint8_t text[WELCOME_ROOM], out[PD_FRAME_MAX];
    pd_writer t = pd_writer_of(text, sizeof text);
    pd_put_varint(&t, manifest_bytes);
    pd_put_bytes(&t, manifest, manifest_bytes);
    pd_put_bytes(&t, in.p, in.n);
    size_t total = (size_t)(t.p - text);
    for (size_t at = 0; t.ok && at < total; at += piece) {
        pd_writer w = pd_writer_of(out, sizeof out);
        pd_item it = {.kind = PD_ITEM_WELCOME};
        it.u.part.offset = at;
        it.u.part.total = total;
        it.u.part.count = (uint32_t)(total - at < piece ? total - at : piece);
        it.u.part.bytes = text + at;
        pd_frame_begin(&w, 0);
        FUZZ_CHECK(pd_frame_put(&w, &it));
        frame(out, (size_t)(w.p - out));
    }
}

static void frames(fuzz_bytes in) {
    while (in.n) {
        size_t n = fuzz_take16(&in) % (PD_FRAME_MAX + 1);
        n = n < in.n ? n : in.n;
        frame(in.p, n);
        in.p += n;
        in.n -= n;
    }
}

/* The node, alone, for the two minutes in which it may come to speak. */
static void live(void) {
    if (box_open(&b) != PD_OK)
        return;
    for (int i = 0; i < 24 && b.core; i++) {
        b.now += 5000;
        box_step(&b, &(pd_event){.kind = PD_EV_TICK});
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    unsigned how = fuzz_take(&in);
    b.act = ignore;
    b.lenient = true;
    box_init(&b, NEWCOMER);
    pd_ledger_close(b.ledger); /* nobody has admitted anybody yet */
    FUZZ_CHECK(pd_ledger_open(&b.ledger) == PD_OK);
    joined = false;
    open_join();
    step(&(pd_event){.kind = PD_EV_TICK});
    step(&(pd_event){.kind = PD_EV_SESSION_UP, .session = SESSION, .outbound = true});
    if (how % 2)
        frames(in);
    else
        welcome(in, 8 * (how + 2));
    for (int i = 0; i < 12; i++) { /* a second each, to the end of its patience */
        b.now += 1000;
        step(&(pd_event){.kind = PD_EV_TICK});
    }
    FUZZ_CHECK(pd_join_wake(join) == UINT64_MAX);
    if (joined)
        live();
    box_finish(&b);
    return 0;
}
