/* mesh_evil.c - members that break the rules on purpose, and whether the others found exactly that.
 */
#include "mesh.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

bool evil_is_forked(const mesh *m, const pd_author *a, uint8_t stream) {
    for (uint32_t i = 0; i < m->n_nodes; i++)
        if (!memcmp(m->nodes[i].id.pub, a->key, 32))
            return m->nodes[i].two_faced && a->inc == 0 && stream == PD_STREAM_GRADIENTS;
    return false;
}

static uint8_t other_face(const node *n, uint64_t step, uint8_t byte) {
    if (step < n->fork_at)
        return byte;
    return byte == 0x81 ? 0x83 : byte ^ 1; /* never the reserved byte */
}

/* The seal of the other log's first `end` bytes. */
static void seal_other(mesh *m, node *n, const slog *l, uint64_t end, uint8_t seal[64]) {
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES];
    pd_chain_init(&chain, m->run, &l->author, l->stream);
    for (uint64_t i = 0; i < end; i++) {
        uint8_t b = other_face(n, i, l->bytes[i]);
        pd_chain_add(&chain, &b, 1);
    }
    pd_seal_message(&chain, m->run, &l->author, l->stream, msg);
    node_sign(n, msg, sizeof msg, seal);
}

void evil_two_faces(mesh *m, node *n, uint64_t session, uint8_t *frame, size_t size) {
    pipe_end *e = net_end(m, session);
    pd_author own = {.inc = 0};
    pd_reader r;
    pd_item it;
    uint64_t ack;
    memcpy(own.key, n->id.pub, 32);
    slog *l = node_log(n, &own, PD_STREAM_GRADIENTS, false);
    if (!n->two_faced || !l || net_other(m, session)->node % 2 == n->index % 2 ||
        !pd_frame_open(frame, size, &r, &ack))
        return;
    while (pd_frame_next(&r, &it)) {
        if (it.kind != PD_ITEM_SEG || e->alias[it.u.seg.alias].inc != 0 ||
            memcmp(e->alias[it.u.seg.alias].key, own.key, 32))
            continue;
        uint64_t start = it.u.seg.start ? it.u.seg.start - 1 : e->face_at;
        e->face_at = start + it.u.seg.count;
        for (uint32_t k = 0; k < it.u.seg.count; k++)
            frame[it.u.seg.bytes - frame + k] = other_face(n, start + k, it.u.seg.bytes[k]);
        if (it.u.seg.seal)
            seal_other(m, n, l, e->face_at, frame + (it.u.seg.seal - frame));
    }
}

bool evil_is_in(const mesh *m, uint32_t i) {
    return i == 0 || (m->nodes[0].core && pd_core_is_member(m->nodes[0].core, m->nodes[i].id.pub));
}

bool evil_ban(mesh *m, uint32_t i) {
    node *founder = &m->nodes[0], *n = &m->nodes[i];
    pd_event e = {.kind = PD_EV_BAN};
    if (i == 0 || !founder->core || !n->core || founder->paused_until > m->now ||
        pd_core_may_ban(founder->core, n->id.pub, &e.author, &e.at) != PD_OK)
        return false;
    memcpy(e.key, n->id.pub, 32);
    n->banned = true;
    node_step(m, founder, &e);
    return true;
}

uint64_t evil_counts(const node *n, const slog *l) {
    uint64_t counts =
        l->stream == PD_STREAM_GRADIENTS ? pd_core_void_at(n->core, &l->author) : l->n;
    return counts < l->n ? counts : l->n;
}

static node *owner(mesh *m, const uint8_t key[32]) {
    for (uint32_t i = 0; i < m->n_nodes; i++)
        if (!memcmp(m->nodes[i].id.pub, key, 32))
            return &m->nodes[i];
    return NULL;
}

bool evil_voids_are_right(mesh *m, char *why, size_t room) {
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        node *n = &m->nodes[i];
        for (uint32_t k = 0; evil_is_in(m, i) && k < n->n_logs; k++) {
            const slog *l = &n->logs[k];
            node *who = owner(m, l->author.key);
            uint64_t at = pd_core_void_at(n->core, &l->author);
            bool forked = evil_is_forked(m, &l->author, l->stream);
            if (l->stream != PD_STREAM_GRADIENTS || !evil_is_in(m, who->index))
                continue;
            if (at != l->void_at || at != pd_core_void_at(m->nodes[0].core, &l->author)) {
                snprintf(why, room, "S7: node %u voids a log of node %u from %lld on, others not",
                         i, who->index, (long long)at);
                return false;
            }
            bool excuse = who->ever_restored || (forked && at == who->fork_at);
            if (at != PD_VOID_NEVER && !excuse) {
                mesh_fail(m, "S7: node %u voids a log of node %u, which did nothing, from %lld on",
                          i, who->index, (long long)at);
                return false;
            }
        }
    }
    return true;
}
