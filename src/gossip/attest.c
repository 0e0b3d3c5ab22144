/* attest.c - checkpoints among members: who attests which, whether that is enough, the newcomer's
 * logs begun at one, and whose turn it is to make the next.
 *
 *   CKPT record ─> a member's last two ─> voices ─> enough? ─> install: each mark proven by its
 *                                                              author's seal
 *
 * A mark needs nobody's word.  The coordinates do, until the audit (prefix.c, trainer) has replayed
 * them, and so the rule of pd_core_ckpt: whoever wants to make up a model has to be several people.
 */
#include "state.h"

#include "peerd/digest.h"

#include <stdio.h>

/* ---- who attests what ---- */

void pd_attest_read(pd_core *c, uint16_t author, const pd_control *rec) {
    pd_member *m = &c->member[c->author[author].member];
    const pd_ckpt_name *is = &rec->ckpt;
    if (is->size == 0 || pd_ckpt_same(&m->ckpt[0], is) || pd_ckpt_same(&m->ckpt[1], is))
        return;
    m->ckpt[1] = m->ckpt[0];
    m->ckpt[0] = *is;
    bool can_be = is->records <= c->total; /* else it would be the newest for ever */
    if (can_be && is->records >= c->attest.newest.records &&
        memcmp(c->attest.newest.file, is->file, 32)) {
        c->attest.newest = *is;
        c->attest.since_ms = c->now;
    }
}

static bool attests(const pd_member *m, const pd_ckpt_name *name) {
    return (m->ckpt[0].size && pd_ckpt_same(&m->ckpt[0], name)) ||
           (m->ckpt[1].size && pd_ckpt_same(&m->ckpt[1], name));
}

/* May this member's word count at all? */
static bool may_speak(const pd_core *c, uint32_t m) {
    return m != c->self && !pd_member_is_out(&c->member[m]) && !c->member[m].v.rotated;
}

/* Is its the first voice among those invited by the same member? */
static bool is_voice(const pd_core *c, uint32_t m, const pd_ckpt_name *name) {
    const pd_member *p = &c->member[m];
    bool by_founder = p->issuer != PD_NONE && c->member[p->issuer].v.founder;
    if (p->v.founder || by_founder)
        return true;
    for (uint32_t i = 0; i < m; i++)
        if (c->member[i].issuer == p->issuer && !c->member[i].v.founder && may_speak(c, i) &&
            attests(&c->member[i], name))
            return false;
    return true;
}

static void count(const pd_core *c, const pd_ckpt_name *name, pd_core_ckpt_status *out) {
    uint32_t others = 0, attesting = 0;
    *out = (pd_core_ckpt_status){.name = *name, .own = attests(&c->member[c->self], name)};
    for (uint32_t i = 0; i < c->n_members; i++) {
        if (!may_speak(c, i))
            continue;
        bool yes = attests(&c->member[i], name);
        others += !c->member[i].left;
        attesting += yes && !c->member[i].left;
        out->attesters += yes;
        out->voices += yes && is_voice(c, i, name);
    }
    bool all = others > 0 && others < PD_VOICES && attesting == others;
    out->enough = all || out->voices >= PD_VOICES;
}

/* The different checkpoints that members attest, as many as are looked at. */
static uint32_t list(const pd_core *c, const pd_ckpt_name *out[PD_CKPTS_MAX]) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        for (unsigned k = 0; k < 2 && n < PD_CKPTS_MAX; k++) {
            const pd_ckpt_name *name = &c->member[i].ckpt[k];
            bool known = !name->size || (!may_speak(c, i) && i != c->self);
            for (uint32_t j = 0; j < n && !known; j++)
                known = pd_ckpt_same(out[j], name);
            if (!known)
                out[n++] = name;
        }
    return n;
}

static bool better(const pd_core_ckpt_status *a, const pd_core_ckpt_status *b) {
    return a->enough != b->enough ? a->enough : a->name.records > b->name.records;
}

bool pd_core_ckpt(const pd_core *c, uint32_t i, pd_core_ckpt_status *out) {
    const pd_ckpt_name *names[PD_CKPTS_MAX];
    pd_core_ckpt_status all[PD_CKPTS_MAX], t;
    uint32_t n = list(c, names);
    if (i >= n)
        return false;
    for (uint32_t k = 0; k < n; k++) {
        count(c, names[k], &t);
        uint32_t at = k;
        for (; at > 0 && better(&t, &all[at - 1]); at--)
            all[at] = all[at - 1];
        all[at] = t;
    }
    *out = all[i];
    return true;
}

bool pd_core_ahead(const pd_core *c, uint64_t *records) {
    bool heard = false, whole = c->n_fresh == 0;
    *records = 0;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        heard |= c->link[i].session && pd_link_live(&c->link[i]) && c->link[i].vv_in;
    for (uint32_t i = 0; i < c->n_authors; i++) {
        const pd_log *log = c->author[i].log;
        whole &= log[PD_STREAM_CONTROL].goal <= log[PD_STREAM_CONTROL].chain.n;
        *records += log[PD_STREAM_GRADIENTS].goal - log[PD_STREAM_GRADIENTS].chain.n;
    }
    return heard && whole;
}

void pd_attest_write(pd_core *c, const pd_event *e) {
    pd_control rec = {.kind = PD_RECORD_CKPT, .ckpt = *e->ckpt};
    if (attests(&c->member[c->self], e->ckpt))
        return;
    if (!pd_own_write(c, &rec))
        pd_note(c, PD_LOG_WARN, "a checkpoint is not attested: the node may not speak now");
}

/* ---- a newcomer begins at one ---- */

/* Why this file must not be installed, or NULL. */
static const char *refusal(pd_core *c, const pd_ckpt *file) {
    const uint8_t *at = file->entries;
    pd_ckpt_log e;
    while (pd_ckpt_next(file, &at, &e)) {
        uint16_t a = pd_author_get(c, &e.author);
        if (a == PD_NONE)
            return "it names somebody who is no member";
        const pd_log *log = &c->author[a].log[PD_STREAM_GRADIENTS];
        if (c->author[a].member == c->self && log->chain.n < e.chain.n)
            return "it holds more of this node's own records than the node itself";
        if (log->v.void_at != PD_VOID_NEVER || log->v.counts < e.chain.n)
            return "it holds records that do not count";
        if (!pd_ckpt_sealed(&e, c->conf.run, c->crypto.verify, c->crypto.ctx))
            return "a mark in it is not what its author has sealed";
    }
    return NULL;
}

/* Logs that hold less begin at the file's marks. */
static void begin_at_marks(pd_core *c, const pd_ckpt *file) {
    const uint8_t *at = file->entries;
    pd_ckpt_log e;
    while (pd_ckpt_next(file, &at, &e)) {
        uint16_t a = pd_author_get(c, &e.author);
        uint32_t index = (uint32_t)a * PD_STREAMS + PD_STREAM_GRADIENTS;
        pd_log *log = pd_log_at_index(c, index);
        pd_stage *st = pd_stage_find(c, index);
        if (log->chain.n >= e.chain.n)
            continue;
        if (st)
            pd_stage_drop(c, st);
        pd_prefix_begin(c, log, pd_ckpt_base(e.chain.n));
        memcpy(log->chain.c, e.chain.c, 32);
        log->chain.n = e.chain.n;
        pd_log_grown(c, index, &e.chain);
    }
    c->installed = true;
    pd_wake_at(c, c->now);
}

static void answer(pd_core *c, pd_err e, uint32_t voices, const char *why) {
    pd_action *a = pd_emit(c, PD_ACT_INSTALLED);
    a->at = (uint64_t)e;
    a->invite = voices;
    a->text = why;
}

void pd_attest_install(pd_core *c, const pd_event *e) {
    uint8_t digest[32];
    pd_core_ckpt_status s = {.enough = false};
    pd_ckpt file;
    if (!c->store.base || pd_ckpt_open(e->p, e->n, c->conf.run, &file) != PD_OK) {
        answer(c, PD_EFORMAT, 0, "it does not parse");
        return;
    }
    pd_hash256(e->p, e->n, digest);
    for (uint32_t i = 0; pd_core_ckpt(c, i, &s); i++, s.enough = false)
        if (!memcmp(s.name.file, digest, 32) && s.enough)
            break;
    if (!s.enough && !PD_BUG(PD_BUG_CKPT_UNATTESTED)) {
        answer(c, PD_EAUTH, s.voices, "not enough members attest it");
        return;
    }
    const char *why = refusal(c, &file);
    if (why) {
        answer(c, PD_EMISMATCH, s.voices, why);
        return;
    }
    answer(c, PD_OK, s.voices, "");
    begin_at_marks(c, &file);
}

void pd_attest_settle(pd_core *c) {
    if (!c->installed)
        return;
    c->installed = false;
    for (uint32_t i = 0; i < c->n_authors; i++) {
        pd_log *log = &c->author[i].log[PD_STREAM_GRADIENTS];
        log->held = log->chain.n;
    }
}

/* ---- whose turn it is ---- */

static uint64_t lot(const pd_core *c, const uint8_t key[32]) {
    uint8_t b[64];
    memcpy(b, key, 32);
    memcpy(b + 32, c->attest.newest.file, 32);
    return pd_xxh64(b, sizeof b, 0);
}

/* How many of those who are here come before this node.  What the last checkpoint was draws the
 * lots, so that no clock has to be agreed on and nobody can choose to be always first.
 */
static uint32_t rank(const pd_core *c) {
    uint64_t own = lot(c, c->conf.key);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_members; i++)
        n += i != c->self && pd_member_state_of(c, &c->member[i], c->now) == PD_MEMBER_HERE &&
             lot(c, c->member[i].key) < own;
    return n;
}

void pd_attest_tick(pd_core *c) {
    pd_attest *t = &c->attest;
    if (!c->conf.ckpt_ms || c->own.voice != PD_VOICE_SPEAKING || c->conf.hold)
        return;
    uint64_t due = t->since_ms + c->conf.ckpt_ms;
    if (c->now < due) {
        pd_wake_at(c, due);
        return;
    }
    due += (uint64_t)rank(c) * PD_CKPT_RANK_MS;
    uint64_t again = t->tried_ms ? t->tried_ms + PD_CKPT_AGAIN_MS : 0;
    due = due > again ? due : again;
    if (c->now < due) {
        pd_wake_at(c, due);
        return;
    }
    t->tried_ms = c->now;
    pd_wake_at(c, c->now + PD_CKPT_AGAIN_MS);
    pd_emit(c, PD_ACT_CKPT_DUE);
}
