/* mesh_ckpt.c - checkpoints in the small world: made, judged and attested, lied about, begun with,
 * audited.
 *
 * What the node's threads do (trainer, store), played in a few lines: a file is made of all that a
 * node holds, others reproduce it from their own bytes before they attest it, a liar attests what
 * is false, and a newcomer fetches, begins at the marks and starts again.  S15 is judged here: a
 * file that is wrong is begun with by nobody who knows an honest member.
 */
#include "ckpt_file.h"
#include "mesh.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the model ---- */

bool ckpt_is_whole(const node *n) {
    for (uint32_t i = 0; i < n->n_logs; i++)
        if (n->logs[i].base)
            return false;
    return true;
}

bool ckpt_coords(mesh *m, const node *n, bool from_base, int32_t a[COORDS]) {
    bool begun = n->begun && !from_base;
    if (begun)
        memcpy(a, n->a, sizeof n->a);
    else
        memset(a, 0, sizeof n->a);
    for (uint32_t i = 0; i < n->n_logs; i++) {
        const slog *l = &n->logs[i];
        uint64_t from = begun ? l->begun : 0, to = l->n ? evil_counts(n, l) : 0;
        if (l->stream != PD_STREAM_GRADIENTS || from == to)
            continue;
        if ((from < to ? from : to) < l->base)
            return false;
        if (from < to)
            pd_replay_fold(&m->replay, a, COORDS, &l->author, from, l->bytes + from,
                           (size_t)(to - from));
        else
            pd_replay_unfold(&m->replay, a, COORDS, &l->author, to, l->bytes + to,
                             (size_t)(from - to));
    }
    return true;
}

/* ---- making ---- */

/* Logs that count whole. */
static uint32_t good_logs(const node *n, ckpt_source out[LOGS_MAX]) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->n_logs; i++) {
        const slog *l = &n->logs[i];
        if (l->stream == PD_STREAM_GRADIENTS && l->n && evil_counts(n, l) >= l->n)
            out[count++] = (ckpt_source){l->author, l->bytes, l->seal, l->n};
    }
    return count;
}

void ckpt_attest(mesh *m, node *n, uint32_t which) {
    pd_event e = {.kind = PD_EV_ATTEST, .ckpt = &m->file[which].name};
    n->files |= UINT32_C(1) << which;
    n->looked_at |= UINT32_C(1) << which;
    node_step(m, n, &e);
}

void ckpt_make(mesh *m, node *n) {
    ckpt_source logs[LOGS_MAX];
    ckpt_lie lie = !n->liar ? CKPT_HONEST : m->forged ? CKPT_FALSE_MARK : CKPT_FALSE_MODEL;
    file *f = &m->file[m->n_files];
    if (m->n_files == FILES_MAX || !ckpt_is_whole(n))
        return;
    f->p = ckpt_file_make(&m->replay, logs, good_logs(n, logs), COORDS, lie, &f->n, &f->name);
    if (f->p)
        ckpt_attest(m, n, m->n_files++);
}

/* ---- judging ---- */

static uint32_t index_of(const mesh *m, const pd_ckpt_name *name) {
    for (uint32_t i = 0; i < m->n_files; i++)
        if (pd_ckpt_same(&m->file[i].name, name))
            return i;
    return FILES_MAX;
}

static const uint8_t *bytes_at(void *ctx, const pd_author *a, uint64_t n) {
    node *at = ctx;
    slog *l = node_log(at, a, PD_STREAM_GRADIENTS, false);
    return l && l->n >= n && !l->base && evil_counts(at, l) >= n ? l->bytes : NULL;
}

/* Does the file hold what this node's logs give?  *known: all of them are here. */
static bool is_right(mesh *m, node *n, const file *f, bool *known) {
    *known = ckpt_file_is_known(&m->replay, f->p, f->n, COORDS, bytes_at, n);
    return *known && ckpt_file_is_right(&m->replay, f->p, f->n, COORDS, bytes_at, n);
}

static void judge(mesh *m, node *n) {
    pd_core_ckpt_status s;
    for (uint32_t i = 0; n->core && pd_core_ckpt(n->core, i, &s); i++) {
        uint32_t which = index_of(m, &s.name);
        bool known;
        if (which == FILES_MAX || n->looked_at >> which & 1)
            continue;
        bool right = is_right(m, n, &m->file[which], &known);
        if (!known)
            continue;
        n->looked_at |= UINT32_C(1) << which;
        if (right)
            ckpt_attest(m, n, which);
    }
}

/* ---- beginning with one ---- */

static void start_again(mesh *m, node *n) {
    n->hold = false;
    node_commit(m, n);
    node_crash(m, n);
    node_start(m, n);
}

static void look_for_one(mesh *m, node *n) {
    pd_core_ckpt_status s;
    uint64_t ahead;
    if (m->now >= n->hold_until) {
        start_again(m, n);
        return;
    }
    if (n->want != FILES_MAX || !pd_core_ahead(n->core, &ahead))
        return;
    uint32_t i =
        rng_percent(&n->r, 30) ? (uint32_t)rng_below(&n->r, 4) : 0; /* some are only tried */
    if (!pd_core_ckpt(n->core, i, &s) || (n->want = index_of(m, &s.name)) == FILES_MAX)
        return;
    n->want_got = 0;
    pd_event e = {.kind = PD_EV_FETCH, .n = (size_t)s.name.size};
    memcpy(e.digest, s.name.file, 16);
    node_step(m, n, &e);
}

void ckpt_turn(mesh *m, node *n) {
    if (!m->ckpts || !n->core || n->stopping)
        return;
    if (n->hold) {
        look_for_one(m, n);
        return;
    }
    pd_author own;
    uint64_t step;
    if (!m->quiet && pd_core_may_speak(n->core, &own, &step) && rng_percent(&n->r, 4))
        ckpt_make(m, n);
    if (!*m->failure && n->up && n->core)
        judge(m, n);
}

size_t ckpt_file(const node *n, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                 size_t room, uint64_t *total) {
    *total = 0;
    for (uint32_t i = 0; i < n->net->n_files; i++) {
        const file *f = &n->net->file[i];
        if (!(n->files >> i & 1) || memcmp(f->name.file, digest, 16) || offset >= f->n)
            continue;
        *total = f->n;
        size_t size = f->n - offset < room ? (size_t)(f->n - offset) : room;
        memcpy(out, f->p + offset, size);
        return size;
    }
    return 0;
}

void ckpt_piece(mesh *m, node *n, const pd_action *a) {
    const file *f = &m->file[n->want];
    if (n->want == FILES_MAX || a->at != n->want_got || memcmp(f->p + a->at, a->p, a->n)) {
        mesh_fail(m, "node %u gets a wrong piece of a checkpoint", n->index);
        return;
    }
    n->want_got += a->n;
    if (n->want_got < f->n)
        return;
    happening *h = mesh_push(m, m->now, W_INSTALL, n->index); /* not within this step */
    h->p = malloc(f->n);
    h->n = f->n;
    memcpy(h->p, f->p, f->n);
}

/* Replay from the base model, once every log is whole. */
static void audit(mesh *m, node *n) {
    int32_t begun[COORDS], replayed[COORDS];
    if (!ckpt_is_whole(n))
        return;
    bool both = ckpt_coords(m, n, false, begun) && ckpt_coords(m, n, true, replayed);
    n->lied_to = !both || memcmp(begun, replayed, sizeof begun);
}

/* As the core has: logs that hold less begin at the marks. */
static void begin(mesh *m, node *n, const file *f) {
    pd_ckpt c;
    pd_ckpt_log e;
    if (pd_ckpt_open(f->p, f->n, m->run, &c) != PD_OK)
        return;
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);) {
        slog *l = node_log(n, &e.author, PD_STREAM_GRADIENTS, true);
        l->begun = e.chain.n;
        if (l->n >= e.chain.n)
            continue;
        l->base = pd_ckpt_base(e.chain.n);
        memcpy(l->mark, e.chain.c, 32);
        l->n = l->room = e.chain.n;
        free(l->bytes);
        l->bytes = calloc(1, (size_t)l->n);
        memcpy(l->bytes + l->base, e.chain.tail, (size_t)(l->n - l->base));
        memcpy(l->seal, e.seal, 64);
    }
    pd_ckpt_coords(&c, n->a);
    n->begun = true;
    m->n_begun++;
    audit(m, n);
}

void ckpt_installed(mesh *m, node *n, const pd_action *a) {
    pd_core_status s;
    const file *f = &m->file[n->want];
    pd_core_ckpt_status c;
    bool known, enough = false;
    for (uint32_t i = 0; pd_core_ckpt(n->core, i, &c); i++)
        enough |= c.enough && index_of(m, &c.name) == n->want;
    pd_core_status_get(n->core, m->now, &s);
    if (n->want == FILES_MAX)
        return;
    if (a->at != PD_OK) {
        m->n_refused++;
        n->want = FILES_MAX; /* perhaps another, or later */
        return;
    }
    if (!enough) {
        mesh_fail(m, "S15: node %u begins with a checkpoint that too few attest", n->index);
        return;
    }
    for (uint32_t i = 0; i < m->n_nodes && s.members > 1; i++) {
        bool judges = i != n->index && m->nodes[i].core;
        bool right = judges && is_right(m, &m->nodes[i], f, &known);
        if (judges && known && !right)
            mesh_fail(m, "S15: node %u begins with a checkpoint that is wrong", n->index);
    }
    begin(m, n, f);
    mesh_push(m, m->now, W_INSTALLED, n->index);
}

void ckpt_prefix(mesh *m, node *n, const pd_action *a) {
    slog *l = node_log(n, &a->author, PD_STREAM_GRADIENTS, true);
    if (a->n) {
        memcpy(l->bytes + a->at, a->p, a->n);
        return;
    }
    truth *t = mesh_truth(m, &l->author, PD_STREAM_GRADIENTS);
    if (a->own && !evil_is_forked(m, &l->author, PD_STREAM_GRADIENTS) && t->n >= l->base &&
        memcmp(t->bytes, l->bytes, (size_t)l->base))
        mesh_fail(m, "S4: node %u takes bytes before a base that are not the author's", n->index);
    if (!a->own)
        return;
    l->base = 0;
    audit(m, n);
}

void ckpt_go_on(mesh *m, node *n, const happening *h) {
    pd_event e = {.kind = PD_EV_INSTALL, .p = h->p, .n = h->n};
    if (!n->core || !n->hold)
        return;
    if (h->kind == W_INSTALLED) {
        start_again(m, n);
        return;
    }
    node_step(m, n, &e);
}
