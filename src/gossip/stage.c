/* stage.c - bytes that wait for their seal.
 *
 * Only the newest seal of a log exists, so a long gap arrives as pieces of which the last one is
 * sealed.  Until then the bytes belong to nobody: they are kept here, for four logs at a time, and
 * not shown to anyone.  A stage outlives its session: another peer may send the rest, since the
 * seal judges the whole.
 */
#include "state.h"

pd_stage *pd_stage_find(pd_core *c, uint32_t log) {
    for (unsigned i = 0; i < PD_STAGES; i++)
        if (c->stage[i].log == log && !c->stage[i].done)
            return &c->stage[i];
    return NULL;
}

static pd_stage *begin(pd_core *c, const pd_link *l, uint32_t log, uint64_t base) {
    for (unsigned i = 0; i < PD_STAGES; i++) {
        pd_stage *s = &c->stage[i];
        if (s->log != PD_NONE)
            continue;
        *s = (pd_stage){
            .log = (uint16_t)log, .link = pd_link_index(c, l), .base = base, .bytes = s->bytes};
        return s;
    }
    return NULL;
}

pd_stage *pd_stage_add(pd_core *c, const pd_link *l, uint32_t log, uint64_t base, uint64_t start,
                       const uint8_t *bytes, size_t count) {
    pd_stage *s = pd_stage_find(c, log);
    if (s && start > s->base + s->have)
        return NULL;
    if (!s) {
        if (start > base || !(s = begin(c, l, log, base)))
            return NULL;
    }
    uint64_t end = s->base + s->have;
    if (start < s->base || start + count <= end)
        return s; /* nothing new */
    size_t skip = (size_t)(end - start);
    if (s->have + count - skip > c->conf.stage_bytes) {
        s->log = PD_NONE;
        return NULL;
    }
    memcpy(s->bytes + s->have, bytes + skip, count - skip);
    s->have += count - skip;
    s->touched_ms = c->now;
    if (s->link != pd_link_index(c, l))
        s->link = PD_NONE;
    return s;
}

void pd_stage_tick(pd_core *c) {
    for (unsigned i = 0; i < PD_STAGES; i++) {
        pd_stage *s = &c->stage[i];
        if (s->log == PD_NONE || s->done)
            continue;
        if (c->now >= s->touched_ms + PD_STAGE_IDLE_MS)
            s->log = PD_NONE;
        else
            pd_wake_at(c, s->touched_ms + PD_STAGE_IDLE_MS);
    }
}
