/* verdict.c - who is in the run and which records count: a pure function of the control logs held.
 *
 *   EVIDENCE  counts wherever it stands: it proves itself
 *      │  void_at of each log = the least step proved; nothing behind it is one log
 *      v
 *   MEMBER, ROTATE before that: who was ever admitted, in how many invitations from the founder
 *      │  and so whose BAN of whom has weight
 *      v
 *   BAN, ROTATE: from which place on a key says nothing that counts
 *      v
 *   MEMBER, ROTATE before all of these: who is admitted; which gradients count
 *
 * Each layer rests on those above alone, so there is one answer, and no order of arrival can
 * matter; two members who ban each other are both banned.  The sets only grow, so a cut only falls;
 * what it voids may give back what rested on it.  Bytes are never thrown away for a ban: they
 * travel, so that version vectors agree, and do not count.  Behind a fork there is nothing to agree
 * on: no more of such a log is taken once it reaches its void step.
 *
 * A MEMBER record in a run without any of the others needs none of this (members.c admits it as it
 * comes); all is judged again when a record of the other kinds is read, which is rare.
 */
#include "state.h"

#include "peerd/digest.h"

#include <assert.h>
#include <stdio.h>

enum { NOBODY = UINT8_MAX };
static const pd_place never = {UINT32_MAX, 0};

static pd_place earlier(pd_place a, pd_place b) {
    return a.inc < b.inc || (a.inc == b.inc && a.at <= b.at) ? a : b;
}

/* How many bytes of incarnation inc lie before a place. */
static uint64_t bytes_before(pd_place p, uint32_t inc) {
    return inc < p.inc ? PD_VOID_NEVER : inc == p.inc ? p.at : 0;
}

/* ---- walking control logs ---- */

/* One record at [at, end) of a control log.  False: enough. */
typedef bool visitor(pd_core *c, uint16_t author, uint64_t at, uint64_t end, const pd_control *rec,
                     void *ctx);

/* Whole records that end at or before `limit`, each once.  A visitor must not walk itself. */
static bool walk(pd_core *c, uint16_t author, uint64_t limit, visitor *visit, void *ctx) {
    const pd_author_state *a = &c->author[author];
    uint64_t held = a->log[PD_STREAM_CONTROL].held, n = held < limit ? held : limit;
    for (uint64_t at = 0; at < n;) {
        size_t room = n - at < sizeof c->record ? (size_t)(n - at) : sizeof c->record, k = 0;
        size_t got = c->store.read(c->store.ctx, &a->id, PD_STREAM_CONTROL, at, c->record, room);
        ptrdiff_t took = 0;
        pd_control rec;
        while (k < got && (took = pd_control_get(c->record + k, got - k, &rec)) > 0) {
            if (!visit(c, author, at + k, at + k + (uint64_t)took, &rec, ctx))
                return false;
            k += (size_t)took;
        }
        if (took < 0 || k == 0)
            break;
        at += k;
    }
    return true;
}

/* The control logs of a member, first incarnation first, before their forks and, if so wished,
 * before what cuts the member off. */
static void walk_member(pd_core *c, uint16_t m, bool cut, visitor *visit, void *ctx) {
    for (uint32_t inc = 0; inc < PD_INCARNATIONS; inc++) {
        pd_author id = {.inc = inc};
        memcpy(id.key, c->member[m].key, 32);
        uint16_t a = pd_author_find(c, &id);
        if (a == PD_NONE)
            continue;
        uint64_t limit = c->author[a].log[PD_STREAM_CONTROL].v.void_at;
        uint64_t before = cut ? bytes_before(c->member[m].v.cut[PD_STREAM_CONTROL], inc) : limit;
        if (!walk(c, a, limit < before ? limit : before, visit, ctx))
            return;
    }
}

/* ---- evidence ---- */

static pd_log *accused_log(pd_core *c, const pd_evidence *e) {
    uint16_t a = pd_author_get(c, &e->author);
    return a == PD_NONE ? NULL : &c->author[a].log[e->stream];
}

static bool take_evidence(pd_core *c, uint16_t author, uint64_t at, uint64_t end,
                          const pd_control *rec, void *ctx) {
    pd_evidence e;
    (void)end, (void)ctx;
    if (rec->kind != PD_RECORD_EVIDENCE ||
        pd_evidence_get(rec->proof, rec->proof_size, &e) != PD_OK)
        return true;
    pd_log *log = accused_log(c, &e);
    bool known = log && PD_BUG(PD_BUG_VOID_FIRST) && log->v.void_at != PD_VOID_NEVER;
    if (!log || known || e.step >= log->v.void_at ||
        !pd_evidence_proves(&e, c->conf.run, c->crypto.verify, c->crypto.ctx))
        return true;
    log->v.void_at = e.step;
    log->v.proof_author = author;
    log->v.proof_at = at;
    return true;
}

/* Does evidence for the void step stand where it counts for ever? */
static bool confirm_evidence(pd_core *c, uint16_t author, uint64_t at, uint64_t end,
                             const pd_control *rec, void *ctx) {
    pd_evidence e;
    (void)end, (void)ctx;
    if (rec->kind != PD_RECORD_EVIDENCE ||
        pd_evidence_get(rec->proof, rec->proof_size, &e) != PD_OK)
        return true;
    pd_log *log = accused_log(c, &e);
    bool same = log && log->v.proof_author == author && log->v.proof_at == at;
    if (same || (log && !log->v.proved && e.step == log->v.void_at &&
                 pd_evidence_proves(&e, c->conf.run, c->crypto.verify, c->crypto.ctx)))
        log->v.proved = true;
    return true;
}

/* ---- who was admitted ---- */

typedef struct admission {
    uint16_t issuer;
    bool changed;
} admission;

static void grant(pd_core *c, admission *x, const pd_control *rec, unsigned depth, unsigned turns,
                  bool founder) {
    if (depth > PD_INVITE_DEPTH || turns > PD_TURNS_MAX)
        return;
    uint16_t m = pd_member_find(c, rec->subject);
    if (m == PD_NONE)
        m = pd_member_add(c, rec->subject, rec->invite, rec->name);
    if (m == PD_NONE)
        return; /* the table is full; whoever was first stays */
    pd_member_verdict *v = &c->member[m].v;
    if (depth >= v->depth && turns >= v->turns && founder <= v->founder)
        return;
    v->depth = (uint8_t)(depth < v->depth ? depth : v->depth);
    v->turns = (uint8_t)(turns < v->turns ? turns : v->turns);
    v->founder |= founder;
    v->look = x->changed = true;
}

static bool rotation_holds(pd_core *c, uint16_t author, const pd_control *rec) {
    uint8_t msg[PD_ROTATE_MESSAGE_BYTES];
    pd_rotate_message(c->conf.run, c->author[author].id.key, rec->subject, msg);
    return memcmp(rec->subject, c->author[author].id.key, 32) &&
           c->crypto.verify(c->crypto.ctx, rec->subject, msg, sizeof msg, rec->sig);
}

static bool admit_by(pd_core *c, uint16_t author, uint64_t at, uint64_t end, const pd_control *rec,
                     void *ctx) {
    admission *x = ctx;
    pd_member_verdict *v = &c->member[x->issuer].v;
    (void)at, (void)end;
    if (rec->kind == PD_RECORD_MEMBER && (v->spent++ < PD_INVITES_ALL || v->founder)) {
        grant(c, x, rec, v->depth + 1u, v->turns, false);
    } else if (rec->kind == PD_RECORD_ROTATE && rotation_holds(c, author, rec)) {
        grant(c, x, rec, v->depth, v->turns + 1u, v->founder);
        return false; /* it has said its last word */
    }
    return true;
}

/* The fixpoint from the founder.  Depth and turns only fall, so any order ends in the same. */
static void admit_all(pd_core *c, bool cut) {
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member_verdict *v = &c->member[i].v;
        bool root = !memcmp(c->member[i].key, c->conf.founder, 32);
        v->depth = v->turns = root ? 0 : NOBODY;
        v->founder = v->look = root;
    }
    admission x = {.changed = true};
    while (x.changed) {
        x.changed = false;
        for (uint32_t i = 0; i < c->n_members; i++) {
            if (!c->member[i].v.look)
                continue;
            c->member[i].v.look = false;
            c->member[i].v.spent = 0;
            x.issuer = (uint16_t)i;
            walk_member(c, x.issuer, cut, admit_by, &x);
        }
    }
}

/* ---- bans and rotations ---- */

static bool read_cuts(pd_core *c, uint16_t author, uint64_t at, uint64_t end, const pd_control *rec,
                      void *ctx) {
    pd_member_verdict *v = ctx;
    (void)at;
    if (rec->kind == PD_RECORD_BAN) {
        uint16_t m = pd_member_find(c, rec->subject);
        if (m != PD_NONE)
            c->member[m].v.accused = true;
    } else if (rec->kind == PD_RECORD_ROTATE && rotation_holds(c, author, rec)) {
        uint32_t inc = c->author[author].id.inc;
        v->rotated = true;
        v->cut[PD_STREAM_GRADIENTS] = (pd_place){inc, rec->step};
        v->cut[PD_STREAM_CONTROL] = (pd_place){inc, end};
        return false;
    }
    return true;
}

/* What one member says of another. */
typedef struct charge {
    const uint8_t *subject;
    bool founder, inviter;
    uint32_t invites, bans;
    pd_place ban[PD_STREAMS];
} charge;

static bool read_charge(pd_core *c, uint16_t author, uint64_t at, uint64_t end,
                        const pd_control *rec, void *ctx) {
    charge *x = ctx;
    (void)at, (void)end;
    bool named = !memcmp(rec->subject, x->subject, 32);
    if (rec->kind == PD_RECORD_MEMBER)
        x->inviter |= (x->invites++ < PD_INVITES_ALL || x->founder) && named;
    else if (rec->kind == PD_RECORD_ROTATE && rotation_holds(c, author, rec))
        return false;
    else if (rec->kind == PD_RECORD_BAN && x->bans++ < PD_BANS_MAX && named) {
        pd_place g = {rec->inc, rec->step}, k = {rec->inc, rec->control};
        x->ban[PD_STREAM_GRADIENTS] = earlier(x->ban[PD_STREAM_GRADIENTS], g);
        x->ban[PD_STREAM_CONTROL] = earlier(x->ban[PD_STREAM_CONTROL], k);
    }
    return true;
}

static charge charge_of(pd_core *c, uint16_t issuer, uint16_t subject) {
    charge x = {.subject = c->member[subject].key, .founder = c->member[issuer].v.founder};
    x.ban[0] = x.ban[1] = never;
    walk_member(c, issuer, false, read_charge, &x);
    return x;
}

/* Keep the PD_BAN_QUORUM earliest places, in order. */
static void insert(pd_place least[PD_BAN_QUORUM], pd_place p) {
    for (int i = 0; i < PD_BAN_QUORUM; i++)
        if (earlier(p, least[i]).inc == p.inc && earlier(p, least[i]).at == p.at) {
            pd_place t = least[i];
            least[i] = p;
            p = t;
        }
}

/* The founder's and the inviter's word count alone; of the others' together, the place that a
 * quorum agrees on: the third earliest. */
static void judge_member(pd_core *c, uint16_t subject) {
    pd_member_verdict *v = &c->member[subject].v;
    pd_place least[PD_STREAMS][PD_BAN_QUORUM];
    for (int s = 0; s < PD_STREAMS; s++)
        for (int i = 0; i < PD_BAN_QUORUM; i++)
            least[s][i] = never;
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (i == subject || c->member[i].v.depth == NOBODY)
            continue;
        charge x = charge_of(c, (uint16_t)i, subject);
        bool alone = x.founder || x.inviter, said = x.ban[0].inc != never.inc;
        v->banned |= alone && said;
        for (int s = 0; s < PD_STREAMS; s++) {
            if (alone)
                v->cut[s] = earlier(v->cut[s], x.ban[s]);
            insert(least[s], x.ban[s]);
        }
    }
    v->banned |= least[0][PD_BAN_QUORUM - 1].inc != never.inc;
    for (int s = 0; s < PD_STREAMS; s++)
        v->cut[s] = earlier(v->cut[s], least[s][PD_BAN_QUORUM - 1]);
}

static void cut_off(pd_core *c) {
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member_verdict *v = &c->member[i].v;
        v->banned = v->rotated = v->accused = false;
        v->cut[0] = v->cut[1] = never;
    }
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].v.depth != NOBODY)
            walk_member(c, (uint16_t)i, false, read_cuts, &c->member[i].v);
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].v.accused)
            judge_member(c, (uint16_t)i);
}

/* ---- what follows ---- */

uint64_t pd_verdict_term(const pd_core *c, uint32_t index) {
    const pd_author_state *a = &c->author[index / PD_STREAMS];
    const pd_log *log = &a->log[index % PD_STREAMS];
    if (!log->counted || !c->member[a->member].v.admitted)
        return 0;
    uint8_t b[32 + 4 + 1 + 3 * 8];
    memcpy(b, a->id.key, 32);
    pd_store32(b + 32, a->id.inc);
    b[36] = (uint8_t)(index % PD_STREAMS);
    pd_store64(b + 37, log->counted);
    pd_store64(b + 45, log->v.void_at);
    pd_store64(b + 53, log->v.tag);
    return pd_xxh64(b, sizeof b, 0);
}

static void recount(pd_core *c, uint32_t index, uint64_t n) {
    pd_log *log = pd_log_at_index(c, index);
    bool was = log->v.term != 0;
    c->vv_hash -= log->v.term;
    c->total -= was ? log->counted : 0;
    log->counted = n;
    log->v.term = pd_verdict_term(c, index);
    c->vv_hash += log->v.term;
    c->total += log->v.term ? n : 0;
}

void pd_verdict_grown(pd_core *c, uint32_t index, const pd_chain *chain) {
    pd_log *log = pd_log_at_index(c, index);
    uint8_t head[32];
    if (log->v.void_at != PD_VOID_NEVER) { /* how much of it counts is found when it can be read */
        c->judge_due = true;
        pd_wake_at(c, c->now);
        return;
    }
    pd_chain_head(chain, head);
    log->v.tag = pd_load64(head);
    recount(c, index, chain->n);
}

/* A forked log stands in vv_hash as far as it is one log, whichever branch is held behind that. */
static void settle_log(pd_core *c, uint32_t index) {
    pd_log *log = pd_log_at_index(c, index);
    uint64_t n = log->chain.n < log->v.void_at ? log->chain.n : log->v.void_at;
    uint8_t head[32];
    if (n > log->held) {
        c->judge_due = true; /* not to be read before the next step */
        pd_wake_at(c, c->now);
        return;
    }
    if (log->v.void_at != PD_VOID_NEVER && pd_fork_head(c, index, n, head))
        log->v.tag = pd_load64(head);
    recount(c, index, n);
    if (log->chain.n >= log->v.void_at)
        pd_sync_enough(c, index);
}

static void settle_logs(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        const pd_author_state *a = &c->author[i / PD_STREAMS];
        const pd_member_verdict *m = &c->member[a->member].v;
        pd_log_verdict *v = &pd_log_at_index(c, i)->v;
        uint64_t before = bytes_before(m->cut[i % PD_STREAMS], a->id.inc);
        v->counts = !m->admitted ? 0 : before < v->void_at ? before : v->void_at;
        settle_log(c, i);
    }
}

static void settle_members(pd_core *c) {
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member *m = &c->member[i];
        bool was = m->v.admitted;
        m->v.admitted = m->v.depth != NOBODY;
        m->left |= m->v.rotated; /* its place is another key's */
        if (!c->max_out || i == c->self || was == m->v.admitted)
            continue;
        pd_note(c, PD_LOG_INFO, "%s%s%s is %s", m->name, *m->name ? " " : "",
                pd_short(m->key, (char[9]){0}),
                m->v.admitted ? "a member now" : "no member: its admission does not count");
    }
}

/* Evidence that stands nowhere where it counts has to be said again: others may never see it. */
static void look_for_proofs(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++)
        pd_log_at_index(c, i)->v.proved = false;
    for (uint32_t i = 0; i < c->n_members; i++)
        if (c->member[i].v.admitted)
            walk_member(c, (uint16_t)i, true, confirm_evidence, NULL);
    c->unproved = false;
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS; i++) {
        const pd_log_verdict *v = &pd_log_at_index(c, i)->v;
        c->unproved |= v->void_at != PD_VOID_NEVER && !v->proved;
    }
}

static void judge(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors; i++)
        walk(c, (uint16_t)i, UINT64_MAX, take_evidence, NULL);
    admit_all(c, false);
    cut_off(c);
    admit_all(c, true);
    settle_members(c);
    settle_logs(c);
    look_for_proofs(c);
    c->untold = true;
}

void pd_verdict_judge(pd_core *c) {
    while (c->judge_due) { /* again if a member came in by it: evidence may name it */
        uint32_t members = c->n_members;
        c->judge_due = false;
        judge(c);
        if (members == c->n_members)
            break;
        c->judge_due = true;
    }
}

/* ---- admission as it comes ---- */

bool pd_verdict_admits(pd_core *c, uint16_t author, const pd_control *rec) {
    uint16_t issuer = c->author[author].member, m = pd_member_find(c, rec->subject);
    pd_member_verdict *v = &c->member[issuer].v;
    bool plain = !c->strict && c->author[author].id.inc == 0 &&
                 (m == PD_NONE || c->member[m].v.depth <= v->depth + 1u);
    if (!plain) { /* the count of an issuer's invitations follows its incarnations, not their
                     arrival */
        c->judge_due = true;
        return false;
    }
    bool counts = v->spent++ < PD_INVITES_ALL || v->founder;
    return counts && v->depth + 1u <= PD_INVITE_DEPTH;
}

void pd_verdict_admitted(pd_core *c, uint16_t author, uint16_t member) {
    const pd_member_verdict *by = &c->member[c->author[author].member].v;
    pd_member_verdict *v = &c->member[member].v;
    v->admitted = true;
    v->depth = (uint8_t)(by->depth + 1);
    v->turns = by->turns;
}

void pd_verdict_new_member(pd_core *c, pd_member *m) {
    bool root = !memcmp(m->key, c->conf.founder, 32);
    m->v.cut[0] = m->v.cut[1] = never;
    m->v.founder = m->v.admitted = root;
    m->v.depth = m->v.turns = root ? 0 : NOBODY;
}

void pd_verdict_new_author(pd_core *c, pd_author_state *a) {
    const pd_member_verdict *m = &c->member[a->member].v;
    for (int s = 0; s < PD_STREAMS; s++) {
        pd_log_verdict *v = &a->log[s].v;
        *v = (pd_log_verdict){.void_at = PD_VOID_NEVER, .told = PD_VOID_NEVER};
        v->counts = bytes_before(m->cut[s], a->id.inc);
        c->untold |= v->counts != v->told;
    }
}

bool pd_verdict_may_invite(const pd_core *c) {
    const pd_member_verdict *v = &c->member[c->self].v;
    return v->admitted && v->depth < PD_INVITE_DEPTH && (v->founder || v->spent < PD_INVITES_ALL);
}

uint64_t pd_verdict_voids(const pd_core *c, uint32_t author) {
    const pd_log *log = &c->author[author].log[PD_STREAM_GRADIENTS];
    return log->chain.n > log->v.counts ? log->chain.n - log->v.counts : 0;
}

void pd_verdict_read(pd_core *c, const pd_control *rec) {
    switch (rec->kind) {
    case PD_RECORD_EVIDENCE:
    case PD_RECORD_BAN:
    case PD_RECORD_ROTATE:
        c->judge_due = c->strict = true;
        break;
    default:
        break;
    }
}

/* ---- time ---- */

/* Room for what follows from one more; else the rest is told in the next step. */
static bool has_room(pd_core *c) {
    if (c->max_out - c->n_out >= PD_ACTIONS_MAX / 2)
        return true;
    c->untold = true;
    pd_wake_at(c, c->now);
    return false;
}

static void tell_voids(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors; i++) {
        pd_log_verdict *v = &c->author[i].log[PD_STREAM_GRADIENTS].v;
        char key[9];
        if (v->counts == v->told)
            continue;
        if (!has_room(c))
            return;
        pd_action *a = pd_emit(c, PD_ACT_VOID);
        a->author = c->author[i].id;
        a->at = v->told = v->counts;
        if (v->counts < c->author[i].log[PD_STREAM_GRADIENTS].chain.n)
            pd_note(c, PD_LOG_WARN, "records of %s from step %llu on do not count any more",
                    pd_short(a->author.key, key), (unsigned long long)v->counts);
    }
}

/* Out at once: every session of it, and the transport admits it no more. */
static void tell_denied(pd_core *c) {
    for (uint32_t i = 0; i < c->n_members; i++) {
        pd_member *m = &c->member[i];
        bool out = pd_member_is_out(m);
        if (i == c->self || out == m->v.denied)
            continue;
        if (!has_room(c))
            return;
        m->v.denied = out;
        pd_view_changed(c);
        pd_dial_soon(c, c->now);
        memcpy(pd_emit(c, out ? PD_ACT_DENY : PD_ACT_ALLOW)->key, m->key, 32);
        if (m->v.banned)
            pd_note(c, PD_LOG_WARN, "%s%s%s is banned", m->name, *m->name ? " " : "",
                    pd_short(m->key, (char[9]){0}));
        for (unsigned k = 0; out && k < PD_SESSIONS_MAX; k++)
            if (c->link[k].session && !c->link[k].guest && c->link[k].member == i)
                pd_link_close(c, &c->link[k], "banned");
    }
}

/* What others have decided about this node. */
static void face_it(pd_core *c) {
    const pd_member_verdict *v = &c->member[c->self].v;
    const pd_author_state *own = &c->author[c->own.author];
    bool out = v->banned || !v->admitted || v->rotated;
    if (out && c->own.voice != PD_VOICE_SILENCED && !c->own.stop_ms) {
        c->own.voice = PD_VOICE_SILENCED;
        pd_note(c, PD_LOG_ERROR, "this node %s: it makes no more records",
                v->banned    ? "was banned by the run's members"
                : v->rotated ? "has passed its place on to another key"
                             : "is no member any more, since its inviter's word does not count");
        pd_emit(c, PD_ACT_SPEAK);
    }
    if (!out && (own->log[0].v.void_at != PD_VOID_NEVER || own->log[1].v.void_at != PD_VOID_NEVER))
        pd_own_conflict(c, c->own.author);
}

static void write_report(pd_core *c) {
    pd_report *r = &c->report;
    pd_control rec = {.kind = PD_RECORD_EVIDENCE, .proof = r->bytes, .proof_size = r->size};
    pd_evidence e;
    if (!r->size)
        return;
    if (c->now < r->due_ms) {
        pd_wake_at(c, r->due_ms);
        return;
    }
    pd_log *log = pd_evidence_get(r->bytes, r->size, &e) == PD_OK ? accused_log(c, &e) : NULL;
    bool known = !log || e.step > log->v.void_at || (e.step == log->v.void_at && log->v.proved);
    if (!known && !pd_own_write(c, &rec)) {
        r->due_ms = c->now + PD_REPORT_MS; /* listening, or the store is behind */
        pd_wake_at(c, r->due_ms);
        return;
    }
    if (!known)
        log->v.reported_ms = c->now;
    r->size = 0;
}

void pd_verdict_report(pd_core *c, const uint8_t *p, size_t n) {
    if (c->report.size || n > PD_EVIDENCE_MAX)
        return; /* one at a time: what is not said stays to be found */
    memcpy(c->report.bytes, p, n);
    c->report.size = n;
    c->report.due_ms = c->now + pd_jitter(c, PD_REPORT_MS / 2, 100);
    pd_wake_at(c, c->report.due_ms);
}

/* The first fork whose evidence only a void part of a log holds. */
static void say_again(pd_core *c) {
    for (uint32_t i = 0; i < c->n_authors * PD_STREAMS && !c->report.size; i++) {
        pd_log_verdict *v = &pd_log_at_index(c, i)->v;
        if (v->void_at == PD_VOID_NEVER || v->proved)
            continue;
        if (v->reported_ms && c->now < v->reported_ms + PD_REPORT_AGAIN_MS) {
            pd_wake_at(c, v->reported_ms + PD_REPORT_AGAIN_MS);
            continue;
        }
        pd_control rec;
        size_t got = c->store.read(c->store.ctx, &c->author[v->proof_author].id, PD_STREAM_CONTROL,
                                   v->proof_at, c->record, sizeof c->record);
        if (pd_control_get(c->record, got, &rec) > 0 && rec.kind == PD_RECORD_EVIDENCE)
            pd_verdict_report(c, rec.proof, rec.proof_size);
    }
}

static void show_life(pd_core *c) {
    const pd_control beacon = {.kind = PD_RECORD_BEACON};
    if (c->own.voice != PD_VOICE_SPEAKING || c->own.pending[PD_STREAM_GRADIENTS].n)
        return; /* the seal that is due says it too */
    if (c->now >= c->own.said_ms + PD_BEACON_MS && pd_own_write(c, &beacon))
        c->own.said_ms = c->now;
    pd_wake_at(c, c->own.said_ms + PD_BEACON_MS);
}

void pd_verdict_tick(pd_core *c) {
    if (c->untold) {
        c->untold = false;
        tell_voids(c);
        tell_denied(c);
    }
    face_it(c);
    if (c->unproved)
        say_again(c);
    write_report(c);
    show_life(c);
}

/* ---- what a person decides ---- */

void pd_verdict_ban(pd_core *c, const pd_event *e) {
    uint16_t m = pd_member_find(c, e->key), a;
    pd_author id = {.inc = e->author.inc};
    memcpy(id.key, e->key, 32);
    if (m == PD_NONE || m == c->self || e->author.inc >= PD_INCARNATIONS)
        return;
    a = pd_author_find(c, &id);
    pd_control rec = {.kind = PD_RECORD_BAN, .inc = id.inc, .step = e->at};
    memcpy(rec.subject, e->key, 32);
    rec.control = a == PD_NONE ? 0 : c->author[a].log[PD_STREAM_CONTROL].chain.n;
    if (!pd_own_write(c, &rec))
        pd_note(c, PD_LOG_WARN, "the ban of %s is not written: the node may not speak now",
                pd_short(e->key, (char[9]){0}));
    c->own.flush = true;
}

void pd_verdict_rotate(pd_core *c, const pd_event *e) {
    pd_control rec = {.kind = PD_RECORD_ROTATE};
    if (e->n != sizeof rec.sig || c->own.voice != PD_VOICE_SPEAKING)
        return;
    const pd_pending *p = &c->own.pending[PD_STREAM_GRADIENTS];
    rec.step = c->author[c->own.author].log[PD_STREAM_GRADIENTS].chain.n + p->n;
    memcpy(rec.subject, e->key, 32);
    memcpy(rec.sig, e->p, sizeof rec.sig);
    c->own.rotates = pd_own_write(c, &rec);
    if (!c->own.rotates)
        pd_note(c, PD_LOG_WARN, "the rotation is not written: the node may not speak now");
    c->own.flush = true;
}

uint64_t pd_core_void_at(const pd_core *c, const pd_author *author) {
    uint16_t a = pd_author_find(c, author);
    return a == PD_NONE ? PD_VOID_NEVER : c->author[a].log[PD_STREAM_GRADIENTS].v.counts;
}

pd_err pd_core_may_ban(const pd_core *c, const uint8_t key[32], pd_author *author, uint64_t *step) {
    uint16_t m = pd_member_find(c, key), newest = PD_NONE;
    if (m == PD_NONE)
        return pd_fail(PD_ENOENT, "no member has this key (peerctl status lists them)");
    if (m == c->self)
        return pd_fail(PD_EUSAGE, "this is the node's own key (to go: peerctl leave)");
    if (c->member[m].v.banned)
        return pd_fail(PD_EEXIST, "this member is banned already");
    if (c->own.voice != PD_VOICE_SPEAKING || c->own.conflict)
        return pd_fail(PD_EBUSY, "the node may not speak yet: it is listening to its peers");
    for (uint32_t i = 0; i < c->n_authors; i++)
        if (c->author[i].member == m &&
            (newest == PD_NONE || c->author[i].id.inc > c->author[newest].id.inc))
            newest = (uint16_t)i;
    assert(newest != PD_NONE); /* every member has its first incarnation */
    *author = c->author[newest].id;
    *step = c->author[newest].log[PD_STREAM_GRADIENTS].chain.n;
    return PD_OK;
}

pd_err pd_core_may_invite(const pd_core *c) {
    const pd_member_verdict *v = &c->member[c->self].v;
    if (pd_verdict_may_invite(c))
        return PD_OK;
    if (!v->admitted)
        return pd_fail(PD_EAUTH, "this node is no member of the run any more");
    if (v->depth >= PD_INVITE_DEPTH)
        return pd_fail(
            PD_EFULL,
            "this node is %d invitations away from the founder, and whom it invited would "
            "not count: let somebody nearer invite (peerctl members)",
            v->depth);
    return pd_fail(PD_EFULL,
                   "this node has admitted %d members, as many as one may: let another invite",
                   PD_INVITES_ALL);
}

bool pd_core_bans_alone(const pd_core *c, const uint8_t key[32]) {
    uint16_t m = pd_member_find(c, key);
    return c->member[c->self].v.founder || (m != PD_NONE && c->member[m].issuer == c->self);
}
