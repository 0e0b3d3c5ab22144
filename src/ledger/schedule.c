/* schedule.c - lr(step) * scale in whole numbers; see replay.h. */
#include "peerd/replay.h"

#include <assert.h>

#include "cosine.h"

__extension__ typedef unsigned __int128 wide;

/* lr * scale, both in units of 2^-40, back to that unit.  A manifest that was read has it within
 * bounds. */
static uint64_t product(uint64_t lr, uint64_t scale) {
    wide p = ((wide)lr * scale + ((wide)1 << 39)) >> 40;
    return p < PD_STEP_MAX ? (uint64_t)p : PD_STEP_MAX;
}

void pd_schedule_of(const pd_manifest *m, pd_schedule *out) {
    out->kind = m->schedule;
    out->n = m->decay_records;
    out->l0 = product(m->lr, m->scale);
    out->lmin = product(m->lr_min, m->scale);
    if (out->l0 == 0)
        out->l0 = 1;
}

/* t of replay.h, 0 .. 2^62. */
static uint64_t cosine_at(uint64_t step, uint64_t n) {
    uint64_t x = (uint64_t)(((wide)step << 40) / n);
    uint64_t k = x >> 32, f = x & UINT32_MAX;
    return ((uint64_t)cosine[k] << 32) - f * (cosine[k] - cosine[k + 1]);
}

uint64_t pd_schedule_at(const pd_schedule *s, uint64_t step) {
    assert(s->kind == PD_SCHEDULE_CONSTANT || s->n > 0);
    if (s->kind == PD_SCHEDULE_CONSTANT)
        return s->l0;
    if (step >= s->n)
        return s->lmin;
    uint64_t l = s->kind == PD_SCHEDULE_LINEAR
                     ? (uint64_t)((wide)s->l0 * (s->n - step) / s->n)
                     : (uint64_t)((wide)s->l0 * cosine_at(step, s->n) >> 62);
    return l > s->lmin ? l : s->lmin;
}
