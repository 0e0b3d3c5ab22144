/* enforce.c - what a node does about the verdict, and what it says to change it.
 *
 *   verdict ─> VOID, ALLOW and DENY to the driver, sessions closed; this node silenced if it is out
 *   a proven fork, a person's word ─> EVIDENCE, BAN, ROTATE in the own control log ─> verdict
 *
 * Who is in the run and what counts is found in verdict.c, from control logs alone; nothing here
 * goes into that but what this node writes into its own.
 */
#include "state.h"

#include <assert.h>

/* ---- what follows ---- */

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

const char *pd_why_out(const pd_core *c) {
    const pd_member_verdict *v = &c->member[c->self].v;
    return v->banned    ? "this node was banned by the run's members"
           : v->rotated ? "this node has passed its place on to another key"
           : !v->admitted
               ? "this node is no member any more, since its inviter's word does not count"
               : NULL;
}

/* What others have decided about this node. */
static void face_it(pd_core *c) {
    const pd_author_state *own = &c->author[c->own.author];
    const char *out = pd_why_out(c);
    if (out && c->own.voice != PD_VOICE_SILENCED && !c->own.stop_ms) {
        c->own.voice = PD_VOICE_SILENCED;
        pd_note(c, PD_LOG_ERROR, "%s: it makes no more records", out);
        pd_emit(c, PD_ACT_SPEAK);
    }
    if (!out && (own->log[0].v.void_at != PD_VOID_NEVER || own->log[1].v.void_at != PD_VOID_NEVER))
        pd_own_conflict(c, c->own.author);
}

/* ---- evidence ---- */

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
    pd_log *log =
        pd_evidence_get(r->bytes, r->size, &e) == PD_OK ? pd_verdict_accused(c, &e) : NULL;
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

void pd_enforce_report(pd_core *c, const uint8_t *p, size_t n) {
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
            pd_enforce_report(c, rec.proof, rec.proof_size);
    }
}

/* ---- what a person decides ---- */

void pd_enforce_ban(pd_core *c, const pd_event *e) {
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

void pd_enforce_rotate(pd_core *c, const pd_event *e) {
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

/* ---- time ---- */

void pd_enforce_tick(pd_core *c) {
    if (c->untold) {
        c->untold = false;
        tell_voids(c);
        tell_denied(c);
    }
    face_it(c);
    if (c->unproved)
        say_again(c);
    write_report(c);
}
