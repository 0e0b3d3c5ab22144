/* gate.c - whose CURVE key may come in; see gate.h. */
#include "gate.h"
#include "peerd/bytes.h"

#include <stdio.h>
#include <stdlib.h>

void pd_gate_init(pd_gate *g, uint32_t per_s, uint64_t now_ms) {
    *g = (pd_gate){.per_s = per_s, .tokens = (uint64_t)per_s * 2000, .last_ms = now_ms};
}

void pd_gate_finish(pd_gate *g) {
    free(g->entries);
    *g = (pd_gate){0};
}

pd_err pd_gate_allow(pd_gate *g, const uint8_t curve[32], const uint8_t peer[32], uint64_t invite) {
    for (size_t i = 0; i < g->n; i++)
        if (memcmp(g->entries[i].curve, curve, 32) == 0) {
            memcpy(g->entries[i].peer, peer, 32);
            g->entries[i].invite = invite;
            return PD_OK;
        }
    if (g->n == g->room) {
        size_t room = g->room ? 2 * g->room : 32;
        pd_gate_entry *p = realloc(g->entries, room * sizeof *p);
        if (!p)
            return pd_fail(PD_ENOMEM, "no memory for %zu keys that may connect", room);
        g->entries = p;
        g->room = room;
    }
    pd_gate_entry *e = &g->entries[g->n++];
    memcpy(e->curve, curve, 32);
    memcpy(e->peer, peer, 32);
    e->invite = invite;
    return PD_OK;
}

void pd_gate_deny(pd_gate *g, const uint8_t *peer, uint64_t invite) {
    for (size_t i = g->n; i-- > 0;) {
        const pd_gate_entry *e = &g->entries[i];
        if (e->invite == invite && (!peer || memcmp(e->peer, peer, 32) == 0))
            g->entries[i] = g->entries[--g->n];
    }
}

pd_verdict pd_gate_ask(pd_gate *g, const uint8_t curve[32], uint64_t now_ms,
                       const pd_gate_entry **who) {
    const pd_gate_entry *e = NULL;
    for (size_t i = 0; i < g->n && !e; i++)
        if (memcmp(g->entries[i].curve, curve, 32) == 0)
            e = &g->entries[i];
    if (!e)
        return PD_REFUSE;
    uint64_t full = (uint64_t)g->per_s * 2000, gained = (now_ms - g->last_ms) * g->per_s;
    g->tokens = gained > full - g->tokens ? full : g->tokens + gained;
    g->last_ms = now_ms;
    if (g->tokens < 1000)
        return PD_LATER;
    g->tokens -= 1000;
    *who = e;
    return PD_ADMIT;
}

void pd_gate_user(const pd_gate_entry *e, char out[PD_GATE_USER]) {
    char key[65];
    pd_hex(e->peer, 32, key);
    snprintf(out, PD_GATE_USER, "%c:%016llx:%s", e->invite ? 'g' : 'm',
             (unsigned long long)e->invite, key);
}

bool pd_gate_user_read(const char *text, uint8_t peer[32], uint64_t *invite) {
    if (strlen(text) != PD_GATE_USER - 1 || (text[0] != 'm' && text[0] != 'g') || text[1] != ':' ||
        text[18] != ':')
        return false;
    char *end;
    *invite = strtoull(text + 2, &end, 16);
    return end == text + 18 && pd_unhex(text + 19, peer, 32) && (*invite != 0) == (text[0] == 'g');
}
