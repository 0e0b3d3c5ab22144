/* stage.c - bytes that wait for their seal.
 *
 * Only the newest seal of a log exists, so a long gap arrives as pieces of which the last one is
 * sealed.  Until then the bytes belong to nobody: they are kept here, for four logs at a time, and
 * not shown to anyone; what is longer than the arena's part is lent by the driver.  A stage
 * outlives its session: another peer may send the rest, since the seal judges the whole.
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
        *s = (pd_stage){.log = (uint16_t)log,
                        .link = pd_link_index(c, l),
                        .base = base,
                        .bytes = s->bytes,
                        .room = s->room};
        return s;
    }
    return NULL;
}

static unsigned index_of(const pd_core *c, const pd_stage *s) {
    return (unsigned)(s - c->stage);
}

/* A gap longer than the arena's part of a stage: the driver's memory. */
static bool grow(pd_core *c, pd_stage *s, size_t bytes) {
    if (!c->store.room)
        return false;
    size_t room = 2 * s->room > bytes ? 2 * s->room : 2 * bytes;
    uint8_t *p = c->store.room(c->store.ctx, index_of(c, s), room);
    if (!p)
        return false;
    if (!s->lent)
        memcpy(p, s->bytes, (size_t)s->have);
    s->bytes = p;
    s->room = room;
    s->lent = true;
    return true;
}

void pd_stage_drop(pd_core *c, pd_stage *s) {
    s->log = PD_NONE;
    s->done = false;
    if (s->lent)
        c->store.room(c->store.ctx, index_of(c, s), 0);
    s->lent = false;
    s->bytes = c->stage_arena + index_of(c, s) * c->conf.stage_bytes;
    s->room = c->conf.stage_bytes;
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
    if (s->have + count - skip > s->room && !grow(c, s, (size_t)(s->have + count - skip))) {
        pd_stage_drop(c, s);
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
            pd_stage_drop(c, s);
        else
            pd_wake_at(c, s->touched_ms + PD_STAGE_IDLE_MS);
    }
}
