/* fuzz_frames.c - three honest cores, and the fuzzer is everything that can go wrong between them:
 * it delivers frames, cuts sessions, lets time pass, kills processes, holds the store up.
 *
 * Whatever it does, nobody is ever given two bytes for one step and logs grow without gaps (S1,
 * S3); when it is done and the network is sound again, all three hold the same within ten minutes
 * (L1). Crashes keep the ledger: what a start does with less is tests/net's and tests/store's to
 * test.
 *
 * Input: op 1 ...: op % 8 = 0..3 deliver on the path op >> 3, 4 time, 5 a gradient, 6 a store
 * answers, 7 a fault: cut a session, kill and restart a process, block or open a pair.
 */
#include "box.h"

#include <string.h>

enum { QUEUE_MAX = 256, SESSIONS_MAX = 8192, TOLD_MAX = 256, PATHS = BOX_NODES * BOX_NODES };
enum { SETTLE_MS = 600000 };

typedef struct message {
    uint64_t session; /* of the receiver */
    uint8_t *p;
    size_t n;
} message;

typedef struct session { /* number 2 i + 1 at the dialler, 2 i + 2 at the other */
    unsigned node[2];
    bool open[2];
} session;

typedef struct world {
    box at[BOX_NODES];
    message queue[PATHS][QUEUE_MAX];
    uint32_t queued[PATHS];
    session sessions[SESSIONS_MAX];
    uint32_t n_sessions;
    bool blocked[PATHS];
    pd_event told[TOLD_MAX]; /* events that actions made, for `who` */
    unsigned who[TOLD_MAX];
    uint32_t n_told;
    uint64_t now;
} world;

static world w;

static void tell(unsigned who, const pd_event *e) {
    FUZZ_CHECK(w.n_told < TOLD_MAX);
    w.who[w.n_told] = who;
    w.told[w.n_told++] = *e;
}

static session *session_of(uint64_t number) {
    return &w.sessions[(number - 1) / 2];
}

static unsigned side_of(uint64_t number) {
    return (number - 1) % 2;
}

static unsigned path(unsigned from, unsigned to) {
    return from * BOX_NODES + to;
}

static void drop_queued(unsigned on, uint64_t number) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < w.queued[on]; i++) {
        if (w.queue[on][i].session == number)
            free(w.queue[on][i].p);
        else
            w.queue[on][kept++] = w.queue[on][i];
    }
    w.queued[on] = kept;
}

/* Both ends lose it, with what was in flight. */
static void cut(uint64_t number, bool tell_this_end) {
    session *s = session_of(number);
    for (unsigned side = 0; side < 2; side++) {
        uint64_t end = (number - 1) / 2 * 2 + 1 + side;
        drop_queued(path(s->node[1 - side], s->node[side]), end);
        if (s->open[side] && (end != number || tell_this_end))
            tell(s->node[side], &(pd_event){.kind = PD_EV_SESSION_DOWN, .session = end});
        s->open[side] = false;
    }
}

static void dial(box *b, const pd_action *a) {
    unsigned to = a->addr.port - 1u;
    bool reached = to < BOX_NODES && !w.blocked[path(b->index, to)] && w.n_sessions < SESSIONS_MAX;
    pd_event e = {.kind = reached ? PD_EV_SESSION_UP : PD_EV_DIAL_FAILED, .outbound = true};
    memcpy(e.key, a->key, 32);
    if (!reached) {
        tell(b->index, &e);
        return;
    }
    w.sessions[w.n_sessions++] = (session){{b->index, to}, {true, true}};
    e.session = 2 * (uint64_t)w.n_sessions - 1;
    tell(b->index, &e);
    e.session++;
    e.outbound = false;
    memcpy(e.key, b->key, 32);
    tell(to, &e);
}

static void send(box *b, const pd_action *a) {
    session *s = session_of(a->session);
    unsigned side = side_of(a->session), on = path(b->index, s->node[1 - side]);
    if (!s->open[side])
        return;
    if (w.queued[on] == QUEUE_MAX) {
        cut(a->session, true);
        return;
    }
    message *m = &w.queue[on][w.queued[on]++];
    *m = (message){.session = a->session % 2 ? a->session + 1 : a->session - 1, .n = a->n};
    m->p = malloc(a->n);
    memcpy(m->p, a->p, a->n);
}

static void act(box *b, const pd_action *a) {
    FUZZ_CHECK(a->kind != PD_ACT_FATAL); /* S8: nobody copied anybody */
    if (a->kind == PD_ACT_SEND)
        send(b, a);
    else if (a->kind == PD_ACT_CLOSE)
        cut(a->session, false);
    else if (a->kind == PD_ACT_DIAL)
        dial(b, a);
}

static void step(unsigned who, const pd_event *e) {
    w.at[who].now = w.now;
    box_step(&w.at[who], e);
    while (w.n_told) {
        pd_event next = w.told[0];
        unsigned to = w.who[0];
        w.n_told--;
        memmove(w.told, w.told + 1, w.n_told * sizeof *w.told);
        memmove(w.who, w.who + 1, w.n_told * sizeof *w.who);
        if (next.session && next.kind == PD_EV_SESSION_UP &&
            !session_of(next.session)->open[side_of(next.session)])
            continue; /* cut before it was told */
        w.at[to].now = w.now;
        box_step(&w.at[to], &next);
    }
}

static void deliver(unsigned on) {
    if (!w.queued[on] || w.blocked[on])
        return;
    message m = w.queue[on][0];
    memmove(w.queue[on], w.queue[on] + 1, --w.queued[on] * sizeof m);
    step(on % BOX_NODES,
         &(pd_event){.kind = PD_EV_FRAME, .session = m.session, .p = m.p, .n = m.n});
    free(m.p);
}

static void pass(uint64_t ms) {
    w.now += ms;
    for (unsigned i = 0; i < BOX_NODES; i++)
        if (pd_core_wake(w.at[i].core) <= w.now)
            step(i, &(pd_event){.kind = PD_EV_TICK});
}

static void gradient(unsigned i, uint8_t byte) {
    pd_event e = {.kind = PD_EV_GRADIENT, .byte = byte};
    if (pd_core_may_speak(w.at[i].core, &e.author, &e.at))
        step(i, &e);
}

static void tell_store(unsigned i) {
    w.at[i].now = w.now;
    box_tell(&w.at[i]);
    step(i, &(pd_event){.kind = PD_EV_TICK});
}

static void restart(unsigned i) {
    for (uint32_t k = 0; k < w.n_sessions; k++)
        for (unsigned side = 0; side < 2; side++)
            if (w.sessions[k].node[side] == i && w.sessions[k].open[side]) {
                w.sessions[k].open[side] = false;
                cut(2 * (uint64_t)k + 1 + side, false);
            }
    w.at[i].now = w.now;
    FUZZ_CHECK(box_open(&w.at[i]) == PD_OK);
    step(i, &(pd_event){.kind = PD_EV_TICK});
}

static void fault(fuzz_bytes *in) {
    unsigned what = fuzz_take(in), i = what % BOX_NODES, k = what / 4 % BOX_NODES;
    if (what >> 6 == 0 && w.n_sessions)
        cut(2 * (fuzz_take(in) % w.n_sessions) + 1, true);
    else if (what >> 6 == 1)
        restart(i);
    else if (what >> 6 == 2 && i != k)
        w.blocked[path(i, k)] = !w.blocked[path(i, k)];
    step(i, &(pd_event){.kind = PD_EV_TICK});
}

/* S1: nobody holds another byte for a step than somebody else. */
static void check_same(void) {
    static uint8_t a[1 << 16], b[1 << 16];
    for (unsigned i = 1; i < BOX_NODES; i++) {
        pd_ledger *l = w.at[i].ledger, *o = w.at[0].ledger;
        pd_log_info info;
        for (uint32_t k = 0; pd_ledger_info(l, k, &info); k++) {
            uint32_t index;
            if (!pd_ledger_find(o, &info.author, &index))
                continue;
            for (uint8_t s = 0; s < PD_STREAMS; s++) {
                size_t n = pd_ledger_read(l, k, s, 0, a, sizeof a);
                size_t m = pd_ledger_read(o, index, s, 0, b, sizeof b);
                FUZZ_CHECK(memcmp(a, b, n < m ? n : m) == 0);
            }
        }
    }
}

static bool settled(void) {
    pd_core_status s[BOX_NODES];
    for (unsigned i = 0; i < BOX_NODES; i++) {
        pd_core_status_get(w.at[i].core, w.now, &s[i]);
        if (s[i].voice != PD_VOICE_SPEAKING || s[i].unsealed || s[i].links != BOX_NODES - 1 ||
            s[i].vv_hash != s[0].vv_hash)
            return false;
    }
    return true;
}

static void settle(void) {
    memset(w.blocked, 0, sizeof w.blocked);
    for (unsigned i = 0; i < BOX_NODES; i++)
        w.at[i].defer = false;
    for (uint64_t until = w.now + SETTLE_MS; !settled(); pass(50)) {
        FUZZ_CHECK(w.now < until); /* L1 */
        for (unsigned on = 0; on < PATHS; on++)
            while (w.queued[on])
                deliver(on);
        for (unsigned i = 0; i < BOX_NODES; i++)
            while (w.at[i].n_stored)
                tell_store(i);
    }
    check_same();
}

static void begin(void) {
    w.now = 1000;
    w.n_sessions = w.n_told = 0;
    memset(w.blocked, 0, sizeof w.blocked);
    for (unsigned i = 0; i < BOX_NODES; i++) {
        w.at[i].act = act;
        w.at[i].defer = true;
        box_init(&w.at[i], i);
    }
    for (unsigned i = 0; i < BOX_NODES; i++)
        FUZZ_CHECK(box_open(&w.at[i]) == PD_OK);
    pass(0);
}

static void end(void) {
    for (unsigned on = 0; on < PATHS; on++) {
        for (uint32_t i = 0; i < w.queued[on]; i++)
            free(w.queue[on][i].p);
        w.queued[on] = 0;
    }
    for (unsigned i = 0; i < BOX_NODES; i++)
        box_finish(&w.at[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const uint32_t times[] = {1, 10, 50, 100, 250, 1000, 3000, 10000};
    fuzz_bytes in = {p, n};
    begin();
    while (in.n) {
        unsigned op = fuzz_take(&in);
        if (op % 8 < 4)
            deliver((op >> 3) % PATHS);
        else if (op % 8 == 4)
            pass(times[op >> 3 & 7]);
        else if (op % 8 == 5)
            gradient((op >> 3) % BOX_NODES, (uint8_t)(1 + (op >> 5)));
        else if (op % 8 == 6)
            tell_store((op >> 3) % BOX_NODES);
        else
            fault(&in);
    }
    check_same();
    settle();
    end();
    return 0;
}
