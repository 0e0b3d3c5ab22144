/* ckpt.c - checkpoints among the simulated nodes: made, judged and attested, lied about, begun
 * with.
 *
 *   CKPT_DUE, or a person asks ─> file of all that is held ─> others reproduce it, attest
 *   newcomer (hold) ─> fetches ─> begins at the marks ─> starts again ─> what lies before them
 * comes
 *
 *   S15  nobody begins with a checkpoint that too few attest, nor with one that is wrong; and what
 *        lies before a mark is, once it is here, what the author sealed (S4)
 *
 * That a node which began with one holds in the end what the others hold, to the same digest, is
 * judge.c's.  Who is to lose what it stored makes no checkpoint and begins with none: bytes that
 * nobody can tell any more would live on in a file.  What members may lie about is the model and
 * the marks, at most two of them, so that no three voices are false.
 */
#include "sim.h"

#include <stdlib.h>

enum { TURN_MS = 8000, HOLD_MIN_MS = 10000, HOLD_MAX_MS = 120000 };

/* ---- making ---- */

static const uint8_t *bytes_of(const sim *s, const slog *l, uint32_t log) {
    return l->own ? l->own->bytes : s->truths[log].bytes;
}

static bool counts_whole(const slog *l) {
    return l->cut - 1 >= l->n; /* cut 0: all do */
}

/* The gradient logs that count whole; *seals is where theirs lie. */
static uint32_t good_logs(sim *s, const node *n, ckpt_source *out, uint8_t (*seals)[64]) {
    uint32_t count = 0;
    for (uint32_t log = 0; log < n->n_logs && log < s->n_authors * PD_STREAMS; log++) {
        const slog *l = &n->logs[log];
        const truth *t = &s->truths[log];
        if (t->stream != PD_STREAM_GRADIENTS || l->n == 0 || !counts_whole(l))
            continue;
        disk_seal(s, n, log, seals[count]);
        out[count] = (ckpt_source){t->author, bytes_of(s, l, log), seals[count], l->n};
        count++;
    }
    return count;
}

static void attest(sim *s, node *n, uint32_t which) {
    pd_event e = {.kind = PD_EV_ATTEST, .ckpt = &s->ckpt[which].name};
    n->ckpts |= UINT64_C(1) << which;
    n->judged |= UINT64_C(1) << which;
    sim_say(s, "n%u attests checkpoint %u of %llu records%s", n->index, which,
            (unsigned long long)s->ckpt[which].name.records,
            s->ckpt[which].lie == CKPT_HONEST ? "" : ", which is false");
    node_step(s, n, &e);
}

static bool same_as_before(const sim *s, const pd_ckpt_name *name, uint32_t *which) {
    for (*which = 0; *which < s->n_ckpts; ++*which)
        if (pd_ckpt_same(&s->ckpt[*which].name, name))
            return true;
    return false;
}

static void make(sim *s, node *n, ckpt_lie lie) {
    uint32_t rows = s->n_authors, which;
    ckpt_source *logs = calloc(rows, sizeof *logs);
    uint8_t(*seals)[64] = calloc(rows, sizeof *seals);
    if (!logs || !seals)
        abort();
    ckpt c = {.lie = lie};
    disk_commit(s, n); /* a file is kept no later than the bytes that it tells of */
    c.p =
        ckpt_file_make(&s->replay, logs, good_logs(s, n, logs, seals), COORDS, lie, &c.n, &c.name);
    free(logs);
    free(seals);
    if (!c.p)
        return;
    if (same_as_before(s, &c.name, &which))
        free(c.p);
    else
        s->ckpt[s->n_ckpts++] = c;
    attest(s, n, which);
}

/* A liar stands by another's lie where there is one: two of them are not three. */
static void lie(sim *s, node *n) {
    ckpt_lie kind = n->lies;
    n->lies = CKPT_HONEST;
    for (uint32_t i = 0; i < s->n_ckpts; i++)
        if (s->ckpt[i].lie != CKPT_HONEST && !(n->judged >> i & 1)) {
            attest(s, n, i);
            return;
        }
    if (s->n_ckpts < CKPTS_MAX)
        make(s, n, kind);
}

/* ---- judging those of others ---- */

static const uint8_t *bytes_held(void *ctx, const pd_author *a, uint64_t size) {
    const node *n = ctx;
    uint32_t log = log_number(n->world, a, PD_STREAM_GRADIENTS);
    const slog *l = log < n->n_logs ? &n->logs[log] : NULL;
    bool here = l && l->n >= size && !disk_base(l) && l->cut - 1 >= size;
    return here ? bytes_of(n->world, l, log) : NULL;
}

/* Has this node a version of its own of a log?  Then its bytes may be others than its neighbours'.
 */
static bool is_odd(const node *n) {
    bool odd = false;
    for (uint32_t log = 0; log < n->n_logs; log++)
        odd |= n->logs[log].own != NULL;
    return odd;
}

/* Bytes that nodes share say the same to all of them: they are folded once. */
static bool is_right(sim *s, node *n, ckpt *c) {
    bool odd = is_odd(n);
    bool right = c->told && !odd
                     ? c->right
                     : ckpt_file_is_right(&s->replay, c->p, c->n, COORDS, bytes_held, n);
    if (!odd) {
        c->told = true;
        c->right = right;
    }
    return right;
}

static void judge(sim *s, node *n) {
    pd_core_ckpt_status st;
    for (uint32_t i = 0; n->core && pd_core_ckpt(n->core, i, &st); i++) {
        uint32_t which;
        if (!same_as_before(s, &st.name, &which) || n->judged >> which & 1)
            continue;
        ckpt *c = &s->ckpt[which];
        if (!ckpt_file_is_known(&s->replay, c->p, c->n, COORDS, bytes_held, n))
            continue;
        n->judged |= UINT64_C(1) << which;
        if (is_right(s, n, c) || BROKEN(s, BROKEN_ATTEST)) {
            attest(s, n, which);
            return; /* the list is another now */
        }
        sim_say(s, "n%u finds checkpoint %u to be false", n->index, which);
    }
}

/* ---- a newcomer ---- */

void ckpt_joined(sim *s, node *n) {
    pd_rng r = rng_of(s->o.seed, "hold", n->index);
    n->hold = s->ckpts && !n->forgets && percent(&r, 60);
    n->hold_until = s->now + draw_log(&r, HOLD_MIN_MS, HOLD_MAX_MS);
}

static void start_again(sim *s, node *n) {
    pd_rng r = rng_of(s->o.seed, "again", s->now);
    n->hold = false;
    disk_commit(s, n);
    node_crash(s, n, &r, false);
    sim_push(s, s->now, W_START, n->index);
}

/* The best one, as a node's people would; or some other, to see whether it is refused. */
static void look_for_one(sim *s, node *n) {
    pd_core_ckpt_status st;
    uint64_t ahead;
    if (n->want != NOBODY || !pd_core_ahead(n->core, &ahead))
        return;
    uint32_t i = percent(&n->r, 30) ? (uint32_t)draw(&n->r, 0, 3) : 0;
    if (!pd_core_ckpt(n->core, i, &st) || !same_as_before(s, &st.name, &n->want)) {
        n->want = NOBODY;
        return;
    }
    n->got = 0;
    pd_event e = {.kind = PD_EV_FETCH, .n = (size_t)st.name.size};
    memcpy(e.digest, st.name.file, 16);
    node_step(s, n, &e);
}

static bool disk_takes(const sim *s, const node *n) {
    return !fault_at(s, F_FULL, n->index) && !fault_at(s, F_STALL, n->index);
}

void ckpt_turn(sim *s, node *n) {
    pd_author own;
    uint64_t step, all = (UINT64_C(1) << s->n_ckpts) - 1;
    if (!s->ckpts || !n->core)
        return;
    if (n->hold) {
        if (s->now >= n->hold_until)
            start_again(s, n);
        else
            look_for_one(s, n);
        return;
    }
    bool turn = (s->now / COMMIT_MS + n->index) % (TURN_MS / COMMIT_MS) == 0;
    if (s->healed || n->forgets || !turn || !pd_core_may_speak(n->core, &own, &step))
        return;
    bool may_make = disk_takes(s, n) && disk_is_whole(s, n);
    if (n->lies != CKPT_HONEST && may_make)
        lie(s, n);
    else if (n->asked && may_make && s->n_ckpts < CKPTS_MAX) {
        n->asked = false;
        make(s, n, CKPT_HONEST);
    } else if ((n->judged & all) != all)
        judge(s, n);
}

size_t ckpt_read(const node *n, const uint8_t digest[16], uint64_t offset, uint8_t *out,
                 size_t room, uint64_t *total) {
    const sim *s = n->world;
    *total = 0;
    for (uint32_t i = 0; i < s->n_ckpts; i++) {
        const ckpt *c = &s->ckpt[i];
        if (!(n->ckpts >> i & 1) || memcmp(c->name.file, digest, 16) || offset >= c->n)
            continue;
        size_t size = c->n - offset < room ? (size_t)(c->n - offset) : room;
        *total = c->n;
        memcpy(out, c->p + offset, size);
        return size;
    }
    return 0;
}

void ckpt_piece(sim *s, node *n, const pd_action *a) {
    const ckpt *c = n->want == NOBODY ? NULL : &s->ckpt[n->want];
    if (!c || a->at != n->got || a->n > c->n - n->got || memcmp(c->p + a->at, a->p, a->n)) {
        sim_fail(s, SAFETY, "S12", "node %u gets a piece of a checkpoint that it is not", n->index);
        return;
    }
    n->got += a->n;
    if (n->got == c->n)
        sim_push(s, s->now, W_INSTALL, n->index); /* not within this step */
}

/* ---- beginning ---- */

static void begin(sim *s, node *n, const ckpt *file) {
    pd_ckpt c;
    pd_ckpt_log e;
    if (pd_ckpt_open(file->p, file->n, s->run, &c)) {
        sim_fail(s, SAFETY, "S15", "node %u begins with what is no checkpoint", n->index);
        return;
    }
    for (const uint8_t *at = c.entries; pd_ckpt_next(&c, &at, &e);)
        disk_begin(s, n, &e);
    pd_ckpt_coords(&c, n->began_at);
    n->begun = true;
    n->hold = false;
    s->begun++;
    disk_commit(s, n);
    sim_push(s, s->now + draw(&n->r, 0, 2000), W_INSTALLED, n->index);
}

void ckpt_installed(sim *s, node *n, const pd_action *a) {
    pd_core_ckpt_status st;
    uint32_t which = n->want;
    bool enough = false;
    if (which == NOBODY)
        return;
    n->want = NOBODY; /* perhaps another, or later */
    sim_say(s, "n%u %s checkpoint %u: %s", n->index, a->at == PD_OK ? "begins with" : "refuses",
            which, a->text);
    s->refused += a->at != PD_OK;
    if (a->at != PD_OK)
        return;
    for (uint32_t i = 0; pd_core_ckpt(n->core, i, &st); i++)
        enough |= st.enough && pd_ckpt_same(&st.name, &s->ckpt[which].name);
    if (!enough)
        sim_fail(s, SAFETY, "S15", "node %u begins with a checkpoint that too few attest",
                 n->index);
    if (s->ckpt[which].lie != CKPT_HONEST)
        sim_fail(s, SAFETY, "S15", "node %u begins with a checkpoint that is false", n->index);
    if (!s->code)
        begin(s, n, &s->ckpt[which]);
}

void ckpt_go_on(sim *s, node *n, event_kind kind) {
    if (kind == W_INSTALLED) {
        start_again(s, n);
        return;
    }
    if (!n->hold || n->want == NOBODY)
        return;
    if (!disk_takes(s, n)) {
        n->want = NOBODY;
        return;
    }
    const ckpt *c = &s->ckpt[n->want];
    pd_event e = {.kind = PD_EV_INSTALL, .p = c->p, .n = c->n};
    node_step(s, n, &e);
}

/* Its next key goes on with the same machine. */
void ckpt_pass_on(node *to, const node *from) {
    to->ckpts = from->ckpts;
    to->judged = from->judged;
    to->begun = from->begun;
    memcpy(to->began_at, from->began_at, sizeof to->began_at);
}
