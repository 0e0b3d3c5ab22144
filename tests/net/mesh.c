/* mesh.c - the world's clock: one heap of events, and whether everyone agrees in the end. */
#include "mesh.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t rng_next(rng *r) { /* splitmix64 */
    uint64_t z = r->s += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t rng_below(rng *r, uint64_t n) {
    return n ? rng_next(r) % n : 0;
}

uint64_t rng_between(rng *r, uint64_t lo, uint64_t hi) {
    return lo + rng_below(r, hi - lo + 1);
}

bool rng_percent(rng *r, unsigned p) {
    return rng_below(r, 100) < p;
}

void mesh_fail(mesh *m, const char *fmt, ...) {
    if (*m->failure)
        return;
    int at = snprintf(m->failure, sizeof m->failure, "at %.3f s: ", (double)m->now / 1000);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m->failure + at, sizeof m->failure - (size_t)at, fmt, ap);
    va_end(ap);
}

void mesh_mix(mesh *m, uint64_t v) {
    m->trace = (m->trace ^ v) * UINT64_C(0x9fb21c651e98df25);
    m->trace ^= m->trace >> 29;
}

/* ---- the heap ---- */

static bool before(const happening *a, const happening *b) {
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static happening *sift_up(mesh *m, size_t i) {
    while (i && before(&m->heap[i], &m->heap[(i - 1) / 2])) {
        happening t = m->heap[i];
        m->heap[i] = m->heap[(i - 1) / 2];
        m->heap[(i - 1) / 2] = t;
        i = (i - 1) / 2;
    }
    return &m->heap[i];
}

/* The place is good until the next push: fill in a, b, c, p, but not the time. */
happening *mesh_push(mesh *m, uint64_t at, what kind, uint32_t n) {
    if (m->n_heap == m->room_heap) {
        m->room_heap = m->room_heap ? 2 * m->room_heap : 256;
        m->heap = realloc(m->heap, m->room_heap * sizeof *m->heap);
    }
    m->heap[m->n_heap] =
        (happening){.at = at < m->now ? m->now : at, .seq = ++m->seq, .kind = kind, .node = n};
    m->heap[m->n_heap].epoch = m->nodes[n].epoch;
    return sift_up(m, m->n_heap++);
}

bool mesh_pop(mesh *m, happening *out) {
    if (m->n_heap == 0)
        return false;
    *out = m->heap[0];
    m->heap[0] = m->heap[--m->n_heap];
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t k = 2 * i + 1; k <= 2 * i + 2 && k < m->n_heap; k++)
            if (before(&m->heap[k], &m->heap[least]))
                least = k;
        if (least == i)
            return true;
        happening t = m->heap[i];
        m->heap[i] = m->heap[least];
        m->heap[least] = t;
        i = least;
    }
}

/* ---- the end ---- */

static bool differ(char *why, size_t room, const char *text, const node *n) {
    snprintf(why, room, "node %u %s", n->index, text);
    return false;
}

static bool same_logs(const mesh *m, const node *a, node *b) {
    for (uint32_t i = 0; i < a->n_logs; i++) {
        const slog *l = &a->logs[i];
        slog *o = node_log(b, &l->author, l->stream, false);
        bool forked = evil_is_forked(m, &l->author, l->stream);
        uint64_t n = forked ? evil_counts(a, l) : l->n;
        if (!pd_core_is_member(a->core, l->author.key)) /* perhaps others never heard of it */
            continue;
        if (n != (!o ? 0 : forked ? evil_counts(b, o) : o->n) || (n && memcmp(l->bytes, o->bytes, n)))
            return false;
    }
    return true;
}

/* What the members that stay have to agree on. */
static uint32_t members_left(const mesh *m) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_nodes; i++)
        n += evil_is_in(m, i);
    return n;
}

bool mesh_converged(mesh *m, char *why, size_t room) {
    uint8_t first[16], digest[16];
    pd_core_status s0, s;
    uint32_t others = members_left(m) - 1;
    uint32_t least = m->n_nodes <= PD_MESH_MAX ? others : 4; /* L4 */
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        node *n = &m->nodes[i];
        if (m->bans && m->nodes[0].core && n->member && !evil_is_in(m, i))
            continue; /* banned, or invited by who was */
        if (!n->core || !n->member)
            return differ(why, room, "is not running", n);
        pd_core_status_get(n->core, m->now, &s);
        node_digest(m, n, digest);
        if (i == 0) {
            s0 = s;
            memcpy(first, digest, 16);
        }
        if (s.voice != PD_VOICE_SPEAKING || s.unsealed)
            return differ(why, room, "has not spoken all it has", n);
        if (s.links < least || (!m->bans && s.members != others)) {
            snprintf(why, room, "node %u links %u members %u", i, s.links, s.members);
            return false;
        }
        if (n->hold || !ckpt_is_whole(n))
            return differ(why, room, "has not audited its checkpoint", n);
        if (s.missing || s.vv_hash != s0.vv_hash)
            return differ(why, room, "has another version vector", n);
        if (!same_logs(m, n, &m->nodes[0]) || !same_logs(m, &m->nodes[0], n) ||
            memcmp(first, digest, 16))
            return differ(why, room, "has other logs or another digest", n);
        if (n->file_got != FILE_BYTES)
            return differ(why, room, "has not got the whole file", n);
    }
    for (uint32_t i = 0; i < m->n_truths; i++) {
        const truth *t = &m->truths[i];
        slog *l = node_log(&m->nodes[0], &t->author, t->stream, false);
        if (pd_core_is_member(m->nodes[0].core, t->author.key) && (l ? l->n : 0) < t->kept) {
            snprintf(why, room, "L2: an acknowledged record is missing (%llu of %llu)",
                     (unsigned long long)(l ? l->n : 0), (unsigned long long)t->kept);
            return false;
        }
    }
    return evil_voids_are_right(m, why, room);
}

mesh *mesh_open(uint64_t seed) {
    mesh *m = calloc(1, sizeof *m);
    m->seed = seed;
    m->r.s = seed;
    m->now = 1000;
    return m;
}

void mesh_close(mesh *m) {
    for (size_t i = 0; i < m->n_heap; i++)
        free(m->heap[i].p);
    for (uint32_t i = 0; i < NODES_MAX; i++) {
        for (uint32_t k = 0; k < m->nodes[i].n_logs; k++)
            free(m->nodes[i].logs[k].bytes);
        for (unsigned k = 0; k < PD_STAGES; k++)
            free(m->nodes[i].stage[k]);
        free(m->nodes[i].arena);
        free(m->nodes[i].join_arena);
    }
    for (uint32_t i = 0; i < m->n_files; i++)
        free(m->file[i].p);
    for (uint32_t i = 0; i < m->n_truths; i++)
        free(m->truths[i].bytes);
    free(m->heap);
    free(m->pipes);
    free(m);
}
