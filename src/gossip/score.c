/* score.c - what a peer provably did wrong, and how much of our work it may ask for.
 *
 * There is nothing to gain: a score is 0 at best and forgets one point a minute.  Only what no
 * honest node can be brought to do by any network counts, so honest nodes never punish each other.
 */
#include "state.h"

static void forget(pd_core *c, pd_member_verdict *v) {
    uint64_t points = (c->now - v->score_ms) / PD_SCORE_MS;
    if (v->score + (int64_t)points >= 0)
        v->score = 0;
    else
        v->score += (int32_t)points;
    v->score_ms = v->score == 0 ? c->now : v->score_ms + points * PD_SCORE_MS;
}

void pd_score(pd_core *c, pd_link *l, int points, const char *why) {
    if (l->member == PD_NONE)
        return;
    pd_member *m = &c->member[l->member];
    pd_member_verdict *v = &m->v;
    forget(c, v);
    v->score += points;
    if (v->score >= PD_SCORE_LEAST)
        return;
    uint64_t twice = 2 * v->refuse_ms;
    v->refuse_ms = twice == 0 ? PD_REFUSE_MS : twice > PD_REFUSE_MAX_MS ? PD_REFUSE_MAX_MS : twice;
    v->refused_until = c->now + v->refuse_ms;
    v->score = 0; /* it has been answered for */
    pd_note(c, PD_LOG_WARN, "%s%s%s is refused for %llu min: %s", m->name, *m->name ? " " : "",
            pd_short(m->key, (char[9]){0}), (unsigned long long)(v->refuse_ms / 60000), why);
    if (l->session)
        pd_link_close(c, l, why);
}

bool pd_score_refuses(const pd_core *c, uint16_t member) {
    const pd_member_verdict *v = &c->member[member].v;
    return c->now < v->refused_until || pd_member_is_out(&c->member[member]);
}

bool pd_budget(pd_core *c, pd_link *l, uint32_t seals) {
    pd_link_verdict *v = &l->v;
    uint64_t most = 1000 * ((uint64_t)PD_BUDGET + c->n_authors * PD_STREAMS);
    uint64_t since = v->budget_ms ? c->now - v->budget_ms : UINT32_MAX;
    uint64_t have = v->budget + (since > 3600000 ? most : since * PD_BUDGET_PER_S);
    have = have < most ? have : most;
    bool may = have >= 1000 * (uint64_t)seals;
    v->budget = (uint32_t)(may ? have - 1000 * (uint64_t)seals : have);
    v->budget_ms = c->now;
    return may;
}
