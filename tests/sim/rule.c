/* rule.c - who is a member and which records count, found a second time from the control logs that
 * one node holds, so that what the cores agree on can be told from what is right.
 *
 * Written from the rule alone (core.h, verdict.c's head) and in the simplest way: all records of
 * all control logs in one list, walked again and again until nothing changes.  It leaves out only
 * the limits that no run of the simulator reaches: invitations and bans of one key, turns of one
 * place.
 */
#include "sim.h"

#include <stdlib.h>

enum { FAR = 255 }; /* not to be reached from the founder */

typedef struct place {
    uint32_t inc;
    uint64_t at;
} place;
static const place nowhere = {UINT32_MAX, 0};

typedef struct word { /* one record of a control log */
    uint32_t log, by;
    uint64_t at, end;
    pd_control rec;
} word;

typedef struct reading {
    sim *s;
    node *from;
    word *words; /* by key, incarnation, place */
    uint32_t n_words, room;
    uint8_t **text; /* their bytes, by log */
    uint32_t n_text;
    uint8_t *depth, *founder; /* by node: as admitted last */
    place (*cut)[PD_STREAMS]; /* by node */
    rule *r;
} reading;

static place earlier(place a, place b) {
    return a.inc < b.inc || (a.inc == b.inc && a.at <= b.at) ? a : b;
}

static bool is_place(place p) {
    return p.inc != nowhere.inc;
}

static uint64_t bytes_before(place p, uint32_t inc) {
    return inc < p.inc ? PD_VOID_NEVER : inc == p.inc ? p.at : 0;
}

static uint32_t who(const reading *x, const uint8_t key[32]) {
    const node *n = sim_node_of(x->s, key);
    return n ? n->index : NOBODY;
}

/* ---- reading ---- */

static void read_log(reading *x, uint32_t log) {
    const slog *l = disk_log(x->s, x->from, log);
    uint8_t *text = x->text[log] = malloc((size_t)l->n + 1);
    if (!text)
        abort();
    size_t n = disk_read(x->s, x->from, log, 0, text, (size_t)l->n);
    for (size_t at = 0; at < n;) {
        pd_control rec;
        ptrdiff_t took = pd_control_get(text + at, n - at, &rec);
        if (took <= 0)
            return;
        x->words = grow(x->words, &x->room, x->n_words + 1, sizeof *x->words);
        x->words[x->n_words++] = (word){.log = log,
                                        .by = x->s->truths[log].owner,
                                        .at = at,
                                        .end = at + (size_t)took,
                                        .rec = rec};
        at += (size_t)took;
    }
}

static void read_all(reading *x) {
    sim *s = x->s;
    for (uint32_t who = 0; who < s->n_nodes; who++)
        for (uint32_t inc = 0; inc < PD_INCARNATIONS; inc++) {
            uint32_t author = s->author_of[who * PD_INCARNATIONS + inc];
            if (author != NOBODY)
                read_log(x, author * PD_STREAMS + PD_STREAM_CONTROL);
        }
}

/* ---- the layers ---- */

static void read_evidence(reading *x) {
    for (uint32_t i = 0; i < x->n_words; i++) {
        const pd_control *rec = &x->words[i].rec;
        pd_evidence e;
        if (rec->kind != PD_RECORD_EVIDENCE ||
            pd_evidence_get(rec->proof, rec->proof_size, &e) != PD_OK ||
            !pd_evidence_proves(&e, x->s->run, node_verify, x->from))
            continue;
        uint32_t log = log_number(x->s, &e.author, e.stream);
        if (log < x->n_text && e.step < x->r->void_at[log])
            x->r->void_at[log] = e.step;
    }
}

static bool is_rotation(const reading *x, const word *w) {
    uint8_t msg[PD_ROTATE_MESSAGE_BYTES];
    const uint8_t *key = x->s->truths[w->log].author.key;
    if (w->rec.kind != PD_RECORD_ROTATE || !memcmp(w->rec.subject, key, 32))
        return false;
    pd_rotate_message(x->s->run, key, w->rec.subject, msg);
    return node_verify(x->from, w->rec.subject, msg, sizeof msg, w->rec.sig);
}

/* What a key says before its fork, before its ROTATE and, if so wished, before what cuts it off. */
static bool stands(const reading *x, uint32_t i, bool cut) {
    const word *w = &x->words[i];
    uint64_t before =
        bytes_before(x->cut[w->by][PD_STREAM_CONTROL], x->s->truths[w->log].author.inc);
    if (w->end > x->r->void_at[w->log] || (cut && w->end > before))
        return false;
    for (uint32_t k = i; k-- > 0 && x->words[k].by == w->by;)
        if (is_rotation(x, &x->words[k]) && stands(x, k, cut))
            return false;
    return true;
}

static void admit(reading *x, bool cut) {
    memset(x->depth, FAR, x->s->n_nodes);
    memset(x->founder, 0, x->s->n_nodes);
    x->depth[0] = 0;
    x->founder[0] = 1;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < x->n_words; i++) {
            const word *w = &x->words[i];
            bool passed = is_rotation(x, w);
            uint32_t subject = who(x, w->rec.subject);
            if ((w->rec.kind != PD_RECORD_MEMBER && !passed) || subject == NOBODY ||
                x->depth[w->by] == FAR || !stands(x, i, cut))
                continue;
            uint8_t depth = (uint8_t)(x->depth[w->by] + !passed);
            bool founder = passed && x->founder[w->by];
            if (depth > PD_INVITE_DEPTH ||
                (depth >= x->depth[subject] && founder <= x->founder[subject]))
                continue;
            x->depth[subject] = depth < x->depth[subject] ? depth : x->depth[subject];
            x->founder[subject] |= founder;
            changed = true;
        }
    }
}

/* The places that one member's BAN records give for another. */
static bool charge(const reading *x, uint32_t by, uint32_t subject, place out[PD_STREAMS]) {
    bool inviter = false;
    out[0] = out[1] = nowhere;
    for (uint32_t i = 0; i < x->n_words; i++) {
        const word *w = &x->words[i];
        if (w->by != by || who(x, w->rec.subject) != subject || !stands(x, i, false))
            continue;
        inviter |= w->rec.kind == PD_RECORD_MEMBER;
        if (w->rec.kind != PD_RECORD_BAN)
            continue;
        out[PD_STREAM_GRADIENTS] =
            earlier(out[PD_STREAM_GRADIENTS], (place){w->rec.inc, w->rec.step});
        out[PD_STREAM_CONTROL] =
            earlier(out[PD_STREAM_CONTROL], (place){w->rec.inc, w->rec.control});
    }
    return inviter || x->founder[by];
}

static int in_order(const void *a, const void *b) {
    const place *p = a, *q = b;
    return p->inc != q->inc ? (p->inc < q->inc ? -1 : 1) : p->at < q->at ? -1 : p->at > q->at;
}

static void judge_bans(reading *x, uint32_t subject, place *said) {
    uint32_t n_nodes = x->s->n_nodes;
    for (uint32_t by = 0; by < n_nodes; by++) {
        place one[PD_STREAMS];
        said[by] = said[n_nodes + by] = nowhere;
        if (by == subject || x->depth[by] == FAR)
            continue;
        bool alone = charge(x, by, subject, one);
        for (int k = 0; k < PD_STREAMS; k++) {
            said[(uint32_t)k * n_nodes + by] = one[k];
            if (alone)
                x->cut[subject][k] = earlier(x->cut[subject][k], one[k]);
        }
        x->r->banned[subject] |= alone && is_place(one[0]);
    }
    for (uint32_t k = 0; n_nodes >= PD_BAN_QUORUM && k < PD_STREAMS; k++) {
        qsort(said + k * n_nodes, n_nodes, sizeof *said, in_order);
        place together = said[k * n_nodes + PD_BAN_QUORUM - 1];
        x->cut[subject][k] = earlier(x->cut[subject][k], together);
        x->r->banned[subject] |= is_place(together);
    }
}

static void cut_off(reading *x) {
    place *said = malloc(PD_STREAMS * x->s->n_nodes * sizeof *said);
    if (!said)
        abort();
    for (uint32_t i = 0; i < x->n_words; i++) {
        const word *w = &x->words[i];
        if (x->depth[w->by] == FAR || !is_rotation(x, w) || !stands(x, i, false))
            continue;
        uint32_t inc = x->s->truths[w->log].author.inc;
        x->cut[w->by][PD_STREAM_GRADIENTS] = (place){inc, w->rec.step};
        x->cut[w->by][PD_STREAM_CONTROL] = (place){inc, w->end};
    }
    for (uint32_t subject = 0; subject < x->s->n_nodes; subject++)
        judge_bans(x, subject, said);
    free(said);
}

/* ---- the answer ---- */

static void *zeroed(size_t n, size_t size) {
    void *p = calloc(n + 1, size);
    if (!p)
        abort();
    return p;
}

void rule_find(sim *s, node *from, rule *r) {
    uint32_t logs = s->n_authors * PD_STREAMS;
    reading x = {.s = s, .from = from, .r = r, .n_text = logs};
    *r = (rule){.n_logs = logs};
    r->admitted = zeroed(s->n_nodes, 1);
    r->banned = zeroed(s->n_nodes, 1);
    r->void_at = zeroed(logs, sizeof *r->void_at);
    r->counts = zeroed(logs, sizeof *r->counts);
    x.text = zeroed(logs, sizeof *x.text);
    x.depth = zeroed(s->n_nodes, 1);
    x.founder = zeroed(s->n_nodes, 1);
    x.cut = zeroed(s->n_nodes, sizeof *x.cut);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        x.cut[i][0] = x.cut[i][1] = nowhere;
    for (uint32_t log = 0; log < logs; log++)
        r->void_at[log] = PD_VOID_NEVER;
    read_all(&x);
    read_evidence(&x);
    admit(&x, false);
    cut_off(&x);
    admit(&x, true);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        r->admitted[i] = x.depth[i] != FAR;
    for (uint32_t log = 0; log < logs; log++) {
        const truth *t = &s->truths[log];
        uint64_t before = bytes_before(x.cut[t->owner][t->stream], t->author.inc);
        r->counts[log] = !r->admitted[t->owner]     ? 0
                         : before < r->void_at[log] ? before
                                                    : r->void_at[log];
    }
    for (uint32_t log = 0; log < logs; log++)
        free(x.text[log]);
    free(x.text);
    free(x.words);
    free(x.depth);
    free(x.founder);
    free(x.cut);
}

void rule_free(rule *r) {
    free(r->admitted);
    free(r->banned);
    free(r->void_at);
    free(r->counts);
    *r = (rule){.n_logs = 0};
}
