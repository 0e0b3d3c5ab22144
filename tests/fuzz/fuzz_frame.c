/* fuzz_frame.c - whatever an authenticated peer sends: the core answers with bounded work, sound
 * frames and contiguous logs, and its own invariants hold (S3, S9, S10).
 *
 * Input: op 1 ..., op & 3 = 0..2: a frame on a session (size 2 | bytes): 0 a member past its HELLO,
 * 1 a member before it, 2 a guest with an invite; 3: op >> 2 (0..63): 0 a gradient, 1..55 that many
 * quarters of a second pass, 56..63 what its own people want of the node meanwhile (see want).
 * Seals need only name their key.
 */
#include "box.h"

#include <string.h>

enum { WANTS = 56 };

static box b;
static bool clogged;
static pd_event failed; /* of the last dial, which nobody answers; TICK: none */

static void take(box *of, const pd_action *a) {
    if (a->kind == PD_ACT_DIAL) {
        failed.kind = PD_EV_DIAL_FAILED;
        memcpy(failed.key, a->key, 32);
    } else if (a->kind == PD_ACT_FATAL || a->kind == PD_ACT_STOPPED)
        of->core = NULL; /* a peer that proves to hold another log of ours may end us */
}

static void up(uint64_t session, unsigned who, bool guest) {
    pd_event e = {.kind = PD_EV_SESSION_UP, .session = session, .guest = guest, .invite = 7};
    box_key(who, e.key);
    if (b.core)
        box_step(&b, &e);
}

static void frame(uint64_t session, const uint8_t *p, size_t n) {
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, p, n);
    box_step(&b, &(pd_event){.kind = PD_EV_FRAME, .session = session, .p = exact, .n = n});
    free(exact);
}

static void hello(uint64_t session) {
    uint8_t out[512];
    pd_writer w = pd_writer_of(out, sizeof out);
    pd_core_status s;
    pd_core_status_get(b.core, b.now, &s);
    pd_item items[] = {
        {.kind = PD_ITEM_HELLO, .u.hello = {.nonce = 77, .proto = PD_PROTO, .vv_hash = s.vv_hash}},
        {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = 0}},
        {.kind = PD_ITEM_ALIAS, .u.alias = {.alias = 1}},
    };
    items[0].u.hello.net[0] = 0x55;
    box_key(1, items[1].u.alias.author.key);
    box_key(0, items[2].u.alias.author.key);
    pd_frame_begin(&w, 0);
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        FUZZ_CHECK(pd_frame_put(&w, &items[i]));
    frame(session, out, (size_t)(w.p - out));
}

static void gradient(void) {
    pd_event e = {.kind = PD_EV_GRADIENT, .byte = 5};
    if (pd_core_may_speak(b.core, &e.author, &e.at))
        box_step(&b, &e);
}

/* 0 a file of others, 1 a seal now, 2 a member banned, 3 a new key, 4 a checkpoint attested, 7 the
 * end; and what the transport has to say: 5 the first session's line clogs, or flows again, 6 the
 * second session is gone.
 */
static void want(unsigned what) {
    static const uint8_t sig[64] = {'S'};
    static const pd_ckpt_name name = {.file = {1}, .size = 100, .records = 3};
    pd_event e = {.session = 1};
    if (what == 0) {
        e.kind = PD_EV_FETCH;
        e.n = 70000;
    } else if (what == 1) {
        e.kind = PD_EV_FLUSH;
    } else if (what == 2) {
        e.kind = PD_EV_BAN;
        box_key(1, e.key);
        if (pd_core_may_ban(b.core, e.key, &e.author, &e.at) != PD_OK)
            return;
    } else if (what == 3) {
        e.kind = PD_EV_ROTATE;
        box_key(5, e.key);
        e.p = sig;
        e.n = sizeof sig;
    } else if (what == 4) {
        e.kind = PD_EV_ATTEST;
        e.ckpt = &name;
    } else if (what == 7) {
        e.kind = PD_EV_STOP;
    } else {
        clogged ^= what == 5;
        e.session = what == 5 ? 1 : 2;
        e.kind = what == 6 ? PD_EV_SESSION_DOWN : clogged ? PD_EV_CLOGGED : PD_EV_FLOWING;
    }
    box_step(&b, &e);
}

/* Whatever came of it, its people can look at it. */
static void look(void) {
    static pd_author authors[64];
    pd_peer_status peer;
    pd_core_ckpt_status ckpt;
    pd_core_status s;
    uint8_t key[32];
    pd_core_status_get(b.core, b.now, &s);
    for (uint32_t i = 0; pd_core_peer_get(b.core, b.now, i, &peer); i++)
        FUZZ_CHECK(peer.name[PD_NAME_MAX] == 0);
    for (uint32_t i = 0; pd_core_ckpt(b.core, i, &ckpt); i++)
        FUZZ_CHECK(i < PD_CKPTS_MAX);
    (void)pd_core_authors(b.core, authors, 64);
    box_key(0, key);
    (void)pd_core_is_member(b.core, key);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    fuzz_bytes in = {p, n};
    b.act = take;
    clogged = false;
    failed = (pd_event){.kind = PD_EV_TICK};
    b.lenient = b.solo = true;
    box_init(&b, 0);
    FUZZ_CHECK(box_open(&b) == PD_OK);
    up(1, 1, false);
    hello(1);
    up(2, 2, false);
    up(3, 9, true);
    while (in.n && b.core) {
        unsigned op = fuzz_take(&in);
        if ((op & 3) < 3) {
            size_t size = fuzz_take16(&in) % (PD_FRAME_MAX + 1);
            size = size < in.n ? size : in.n;
            frame(1 + (op & 3), in.p, size);
            in.p += size;
            in.n -= size;
        } else if (op >> 2 >= WANTS) {
            want((op >> 2) - WANTS);
        } else if (op >> 2) {
            b.now += 250 * (op >> 2);
            pd_event e = failed;
            failed.kind = PD_EV_TICK;
            box_step(&b, &e);
        } else {
            gradient();
        }
    }
    if (b.core)
        look();
    box_finish(&b);
    return 0;
}
