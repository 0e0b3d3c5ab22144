/* box.c - see box.h. */
#include "box.h"

#include "peerd/digest.h"

#include <string.h>

/* Small tables: a start costs what its clearing costs, and a search gets to where they are full;
 * room for more than a mesh, so that it gets to partial views too. */
enum { MEMBERS = 32 };

static const uint8_t run[32] = {0x55};

void box_key(unsigned index, uint8_t key[32]) {
    for (unsigned i = 0; i < 32; i++)
        key[i] = (uint8_t)(0x10 * (index + 1) + i);
}

void box_sign(const uint8_t key[32], const void *msg, size_t n, uint8_t sig[64]) {
    memset(sig, 0, 64);
    sig[0] = 'S';
    sig[1] = key[0];
    pd_store64(sig + 2, pd_xxh64(msg, n, key[0]));
}

static void sign(void *ctx, const void *msg, size_t n, uint8_t sig[64]) {
    box_sign(((box *)ctx)->key, msg, n, sig);
}

static bool verify(void *ctx, const uint8_t pub[32], const void *msg, size_t n,
                   const uint8_t sig[64]) {
    uint8_t right[64];
    box_sign(pub, msg, n, right);
    return memcmp(sig, right, ((box *)ctx)->lenient ? 2 : 64) == 0;
}

static uint64_t draw(void *ctx) {
    return ((box *)ctx)->random += UINT64_C(0x9e3779b97f4a7c15);
}

static bool log_seal(void *ctx, const pd_author *a, uint8_t stream, uint64_t *n, uint8_t seal[64]) {
    box *b = ctx;
    uint32_t i;
    pd_log_info info;
    if (!pd_ledger_find(b->ledger, a, &i) || !pd_ledger_info(b->ledger, i, &info))
        return false;
    *n = info.n[stream];
    memcpy(seal, info.seal[stream], 64);
    return *n > 0;
}

static size_t log_read(void *ctx, const pd_author *a, uint8_t stream, uint64_t from, uint8_t *out,
                       size_t room) {
    box *b = ctx;
    uint32_t i;
    return pd_ledger_find(b->ledger, a, &i) ? pd_ledger_read(b->ledger, i, stream, from, out, room)
                                            : 0;
}

/* Every node serves one file of zeros. */
static size_t log_file(void *ctx, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                       size_t room, uint64_t *total) {
    (void)ctx, (void)digest;
    enum { FILE_BYTES = 20000 };
    *total = FILE_BYTES;
    size_t n = offset >= FILE_BYTES ? 0 : (size_t)(FILE_BYTES - offset);
    n = n < room ? n : room;
    memset(out, 0, n);
    return n;
}

static void append(box *b, const pd_author *a, uint8_t stream, uint64_t from, const uint8_t *p,
                   size_t n, const uint8_t seal[64]) {
    uint32_t i;
    pd_log_info info;
    FUZZ_CHECK(pd_ledger_author(b->ledger, a, &i) == PD_OK);
    FUZZ_CHECK(pd_ledger_info(b->ledger, i, &info) && info.n[stream] == from); /* S3 */
    FUZZ_CHECK(pd_ledger_append(b->ledger, i, stream, from, p, n, seal) == PD_OK);
}

static void admit_all(box *b) {
    uint8_t log[512], msg[PD_SEAL_MESSAGE_BYTES], seal[64];
    pd_writer w = pd_writer_of(log, sizeof log);
    pd_author founder = {.inc = 0};
    pd_chain chain;
    box_key(0, founder.key);
    for (unsigned i = 1; i < BOX_NODES; i++) {
        pd_control rec = {.kind = PD_RECORD_MEMBER, .name = "n"};
        box_key(i, rec.subject);
        FUZZ_CHECK(pd_control_put(&w, &rec));
    }
    pd_chain_init(&chain, run, &founder, PD_STREAM_CONTROL);
    pd_chain_add(&chain, log, (size_t)(w.p - log));
    pd_seal_message(&chain, run, &founder, PD_STREAM_CONTROL, msg);
    box_sign(founder.key, msg, sizeof msg, seal);
    append(b, &founder, PD_STREAM_CONTROL, 0, log, (size_t)(w.p - log), seal);
}

void box_init(box *b, unsigned index) {
    b->index = index;
    b->random = index + 1;
    b->now = 1000;
    b->incarnation = 0;
    b->n_stored = 0;
    box_key(index, b->key);
    FUZZ_CHECK(pd_ledger_open(&b->ledger) == PD_OK);
    admit_all(b);
}

void box_finish(box *b) {
    pd_ledger_close(b->ledger);
    b->ledger = NULL;
}

pd_err box_open(box *b) {
    pd_core_crypto crypto = {b, sign, verify, draw};
    pd_core_log log = {.ctx = b, .seal = log_seal, .read = log_read, .file = log_file};
    pd_known_addr known[BOX_NODES];
    pd_core_conf conf = {.manifest = "text",
                         .manifest_bytes = 4,
                         .incarnation = b->incarnation,
                         .n_listen = 1,
                         .seal_ms = 2000,
                         .stage_bytes = 4096,
                         .members_max = MEMBERS,
                         .solo = b->solo,
                         .known = known,
                         .n_known = BOX_NODES};
    memcpy(conf.run, run, 32);
    memcpy(conf.key, b->key, 32);
    box_key(0, conf.founder);
    for (unsigned i = 0; i < BOX_NODES; i++) {
        known[i].addr = (pd_addr){4, {10, 0, 0, (uint8_t)(i + 1)}, (uint16_t)(i + 1)};
        box_key(i, known[i].key);
    }
    conf.listen[0] = known[b->index].addr;
    if (!b->arena) {
        b->room = pd_core_bytes(&conf);
        b->arena = aligned_alloc(64, (b->room + 63) / 64 * 64);
    }
    b->n_stored = 0;
    pd_err e = pd_core_open(&conf, &crypto, &log, b->now, b->arena, b->room, &b->core);
    if (!e)
        box_step(b, &(pd_event){.kind = PD_EV_TICK});
    return e;
}

/* S9: what is sent is a frame that every reader takes. */
static void check_frame(const uint8_t *p, size_t n) {
    pd_reader r;
    pd_item it;
    uint64_t ack;
    FUZZ_CHECK(n <= PD_FRAME_MAX && pd_frame_open(p, n, &r, &ack));
    while (pd_frame_next(&r, &it))
        ;
    FUZZ_CHECK(r.ok);
}

static void store(box *b, const pd_action *a) {
    append(b, &a->author, a->stream, a->at, a->p, a->n, a->seal);
    if (!a->own)
        return;
    FUZZ_CHECK(memcmp(a->author.key, b->key, 32) == 0 && b->n_stored < BOX_STORES);
    b->stored[b->n_stored++] = (pd_event){
        .kind = PD_EV_STORED, .author = a->author, .stream = a->stream, .at = a->at + a->n};
}

void box_tell(box *b) {
    if (!b->n_stored || !b->core)
        return;
    pd_event e = b->stored[0];
    memmove(b->stored, b->stored + 1, --b->n_stored * sizeof *b->stored);
    box_step(b, &e);
}

void box_step(box *b, const pd_event *e) {
    char why[128] = "";
    static pd_action acts[PD_ACTIONS_MAX]; /* `act` makes no step; the one at the end comes after */
    size_t n = pd_core_step(b->core, b->now, e, acts, PD_ACTIONS_MAX);
    FUZZ_CHECK(n <= PD_ACTIONS_MAX);
    for (size_t i = 0; i < n && b->core; i++) {
        if (acts[i].kind == PD_ACT_SEND)
            check_frame(acts[i].p, acts[i].n);
        if (acts[i].kind == PD_ACT_STORE)
            store(b, &acts[i]);
        else if (acts[i].kind == PD_ACT_META)
            b->incarnation = (uint32_t)acts[i].at;
        else
            b->act(b, &acts[i]);
    }
    if (!b->core)
        return;
    if (!pd_core_check(b->core, why, sizeof why)) {
        fprintf(stderr, "node %u: %s\n", b->index, why);
        abort();
    }
    while (!b->defer && b->n_stored)
        box_tell(b);
}
