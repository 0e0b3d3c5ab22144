/* justice.c - what is taken from members and given on: void records, bans, rotation; and that it
 * hits nobody who did nothing.
 *
 *   S7   records become void only where their author's logs may part, it was banned or passed its
 *        place on, or its admission hangs on somebody like that; and void by evidence only falls
 *   S8   nobody else is shut out
 *   S11  5 s after a ban is known there is no session with the banned key
 *
 * That the right records are void in the end, and the same everywhere, judge.c finds by rule.c.
 */
#include "sim.h"

#include <stdlib.h>

enum { BARRED_MS = 5000, AGAIN_MS = 3000 };

/* Nobody in the chain of those who admitted it said anything that can be taken back. */
static bool stands_on_honest_words(const sim *s, const node *n) {
    for (const node *m = n; m->index && m->ticket.inviter != NOBODY;) {
        m = &s->nodes[m->ticket.inviter];
        if (m->forked || m->banned)
            return false;
    }
    return true;
}

/* ---- void ---- */

/* The least step from which on records of this log may rightly be void at some node. */
static uint64_t least_void(const sim *s, const truth *t) {
    const node *owner = &s->nodes[t->owner];
    uint64_t least = t->forked ? t->fork_from : PD_VOID_NEVER;
    if (owner->rotates && t->seen < least)
        least = t->seen; /* behind its last word */
    return owner->banned || !stands_on_honest_words(s, owner) ? 0 : least;
}

void justice_void(sim *s, node *n, const pd_action *a) {
    uint32_t log = log_number(s, &a->author, PD_STREAM_GRADIENTS);
    if (log == NOBODY) {
        sim_fail(s, SAFETY, "S7", "node %u voids records of nobody's key", n->index);
        return;
    }
    const truth *t = &s->truths[log];
    const node *owner = &s->nodes[t->owner];
    slog *l = disk_log(s, n, log);
    uint64_t was = l->cut - 1, least = least_void(s, t);
    if (a->at < least)
        sim_fail(s, SAFETY, "S7", "node %u voids records of node %u from step %llu on%s", n->index,
                 t->owner, (unsigned long long)a->at,
                 t->forked ? ", before its logs part" : ", who did nothing");
    if (a->at > was && !owner->banned && stands_on_honest_words(s, owner))
        sim_fail(s, SAFETY, "S7", "node %u gives back records of node %u: void %llu, then %llu",
                 n->index, t->owner, (unsigned long long)was, (unsigned long long)a->at);
    sim_say(s, "n%u voids n%u's incarnation %u from %llu on", n->index, t->owner, a->author.inc,
            (unsigned long long)a->at);
    s->strict = true;
    node_fold(s, n, log);
    l->cut = a->at + 1;
    node_fold(s, n, log);
}

/* ---- shut out ---- */

void justice_deny(sim *s, node *n, const uint8_t key[32]) {
    const node *who = sim_node_of(s, key);
    if (!who || (!who->banned && stands_on_honest_words(s, who))) {
        sim_fail(s, SAFETY, "S8", "node %u shuts out node %u, who did nothing", n->index,
                 who ? who->index : NOBODY);
        return;
    }
    sim_push(s, s->now + BARRED_MS, W_BARRED, n->index)->a = who->index;
}

void justice_barred(sim *s, node *n, const happening *h) {
    const node *who = &s->nodes[h->a];
    if (!n->core || pd_core_is_member(n->core, who->id.pub))
        return; /* what shut it out does not count any more */
    for (uint32_t i = 0; i < n->n_sessions; i++) {
        const pipe_end *e = path_end(s, n->sessions[i]);
        const node *other = &s->nodes[path_other(s, e->session)->node];
        if (e->up && !memcmp(other->id.pub, who->id.pub, 32) && !other->join)
            sim_fail(s, SAFETY, "S11", "node %u has a session with node %u %u s after its ban",
                     n->index, who->index, BARRED_MS / 1000);
    }
}

/* ---- what people decide ---- */

static bool may_act(const sim *s, const node *n) {
    return n->core && !n->evil_now && !n->forked && n->twin == NOBODY && n->busy_until <= s->now;
}

/* False: not now. */
static bool say_ban(sim *s, node *by, node *subject) {
    pd_event e = {.kind = PD_EV_BAN};
    memcpy(e.key, subject->id.pub, 32);
    if (by->twin != NOBODY || !may_act(s, by))
        return false;
    pd_err err = pd_core_may_ban(by->core, e.key, &e.author, &e.at);
    if (err)
        return err == PD_EEXIST;
    sim_say(s, "n%u bans n%u from incarnation %u, step %llu on", by->index, subject->index,
            e.author.inc, (unsigned long long)e.at);
    s->strict = s->distrust = true;
    subject->banned |= !BROKEN(s, BROKEN_JUSTICE);
    node_step(s, by, &e);
    return true;
}

/* The founder, whoever invited it, or three members: each of these is enough. */
void justice_ban(sim *s, uint32_t number) {
    const fault *f = &s->faults[number];
    node *subject = &s->nodes[f->node];
    bool guilty = subject->evil_now || subject->forked || BROKEN(s, BROKEN_JUSTICE);
    bool said = true;
    uint32_t voices = 0;
    if (!guilty || !subject->member || subject->ticket.inviter == NOBODY)
        return;
    if (f->arg % 3 < 2)
        said = say_ban(s, &s->nodes[f->arg % 3 ? subject->ticket.inviter : 0], subject);
    for (uint32_t i = 0; f->arg % 3 == 2 && i < s->n_members && voices < PD_BAN_QUORUM; i++) {
        node *by = &s->nodes[(i + f->arg / 3) % s->n_members];
        if (by == subject || !may_act(s, by))
            continue;
        voices++;
        said &= say_ban(s, by, subject);
    }
    if (!said && s->now + AGAIN_MS < f->end)
        sim_push(s, s->now + AGAIN_MS, W_FAULT, NOBODY)->a = number;
}

void justice_rotate(sim *s, node *n) {
    node *next = n->successor == NOBODY ? NULL : &s->nodes[n->successor];
    uint8_t msg[PD_ROTATE_MESSAGE_BYTES], sig[64];
    pd_author a;
    uint64_t step;
    if (!next || !may_act(s, n) || n->forgets || !pd_core_may_speak(n->core, &a, &step))
        return;
    pd_rotate_message(s->run, n->id.pub, next->id.pub, msg);
    node_sign(next, msg, sizeof msg, sig);
    n->rotates = true;
    next->ticket.inviter = n->index;
    pd_event e = {.kind = PD_EV_ROTATE, .p = sig, .n = sizeof sig};
    memcpy(e.key, next->id.pub, 32);
    s->strict = true;
    sim_say(s, "n%u passes its place on to n%u", n->index, next->index);
    node_step(s, n, &e);
    if (!n->core)
        return;
    e = (pd_event){.kind = PD_EV_STOP};
    node_step(s, n, &e);
}
