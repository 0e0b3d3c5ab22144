/* watch.c - what must never happen, looked for in every frame that leaves and in every step.
 *
 *   S1   disk.c: a step sealed twice, or taken otherwise than it was seen;
 *        here: speaking without having listened
 *   S2   own bytes leave before they are durable                 (every SEG and CTL)
 *   S3   disk.c: a log stored with a gap, or twice
 *   S4   disk.c: bytes stored that their author never sealed
 *   S8   drive.c: an honest process ends itself; here: honest nodes count each other's seals or
 *        frames as bad, or refuse each other (every note); bans: justice.c
 *   S9   frames that do not parse or are too long, too many sessions, pd_core_check
 *   S10  drive.c: noise changes what a node holds
 *   S11  drive.c: a key is admitted that nobody invited
 *   S12  announced or sent: bytes that the sender does not hold  (every SEG, CTL, PREFIXA, HEADS)
 *   S13  a run with another clock has the same trace             (--twice)
 *   S14  a run repeated has the same trace                       (--twice, test_traces.sh)
 *   S15  ckpt.c: beginning with a false checkpoint, or one that too few attest
 *   L6   the same bytes asked for again at once                  (every PULL)
 *
 * S5, S6, the rest of S15 and what has to happen are judged at the end, in judge.c.
 */
#include "sim.h"

#include <stdlib.h>

enum { PATIENCE_MS = 1500 }; /* half of the least wait of a repair */

void watch_free(pipe_end *e) {
    free(e->alias);
    free(e->at);
    free(e->pulled);
    free(e->base);
    e->base = NULL;
    e->n_base = 0;
    e->alias = NULL;
    e->at = NULL;
    e->pulled = NULL;
    e->n_alias = 0;
}

static void learn_alias(sim *s, pipe_end *e, uint32_t alias, const pd_author *a) {
    uint32_t was = e->n_alias, rows = was, more = was, pulls = was;
    e->alias = grow(e->alias, &more, alias + 1, sizeof *e->alias);
    rows *= PD_STREAMS, pulls *= PD_STREAMS;
    e->at = grow(e->at, &rows, more * PD_STREAMS, sizeof *e->at);
    e->pulled = grow(e->pulled, &pulls, more * PD_STREAMS, sizeof *e->pulled);
    e->n_alias = more;
    uint32_t log = log_number(s, a, 0);
    e->alias[alias] = log == NOBODY ? NOBODY : log + 1; /* 0: never announced */
}

static void learn_base(sim *s, pipe_end *e, const pipe_end *from) {
    for (uint32_t i = 0; i < from->n_base; i++)
        learn_alias(s, e, i, &from->base[i]);
}

/* Where both ends knew the same authors, their order is their numbers. */
static void watch_hello(sim *s, const node *from, pipe_end *e, pipe_end *o, uint64_t memb_hash) {
    uint32_t room = pd_core_authors(from->core, NULL, 0);
    e->base = calloc(room + 1, sizeof *e->base);
    if (!e->base)
        abort();
    e->n_base = pd_core_authors(from->core, e->base, room);
    e->memb_hash = memb_hash;
    if (o->memb_hash != memb_hash) /* 0: no HELLO of it */
        return;
    learn_base(s, e, e);
    learn_base(s, o, o); /* of nobody, where it has crashed since */
}

/* Our number of a log that this end names, or NOBODY. */
static uint32_t log_of(const pipe_end *e, uint32_t theirs) {
    uint32_t alias = theirs / PD_STREAMS;
    if (alias >= e->n_alias || e->alias[alias] == 0 || e->alias[alias] == NOBODY)
        return NOBODY;
    return e->alias[alias] - 1 + theirs % PD_STREAMS;
}

static void watch_segment(sim *s, node *from, pipe_end *e, const pd_item *it) {
    uint32_t theirs = it->u.seg.alias * PD_STREAMS + (it->kind == PD_ITEM_CTL),
             log = log_of(e, theirs);
    if (log == NOBODY) {
        sim_fail(s, SAFETY, "S9", "node %u sends bytes of a log that it never named", from->index);
        return;
    }
    uint64_t start = it->u.seg.start ? it->u.seg.start - 1 : e->at[theirs],
             stop = start + it->u.seg.count;
    uint8_t bytes[PD_PIECE_MAX];
    const slog *l = disk_log(s, from, log);
    const truth *t = &s->truths[log];
    e->at[theirs] = stop;
    s->segment_bytes += it->u.seg.count;
    s->saw_segment = true;
    size_t got = disk_read(s, from, log, start, bytes, it->u.seg.count);
    if (got < it->u.seg.count || memcmp(bytes, it->u.seg.bytes, got))
        sim_fail(s, SAFETY, "S12",
                 "node %u sends bytes %llu..%llu of node %u that it does not hold", from->index,
                 (unsigned long long)start, (unsigned long long)stop, t->owner);
    /* Bytes that others showed it and that it took back need not be durable again. */
    bool adopted = t->forked || s->nodes[t->owner].forgets;
    if (!memcmp(t->author.key, from->id.pub, 32) && l->durable < stop && !adopted)
        sim_fail(s, SAFETY, "S2", "node %u sends own bytes up to %llu, durable are %llu",
                 from->index, (unsigned long long)stop, (unsigned long long)l->durable);
}

/* Bytes from before somebody's base: unsealed, so whoever sends them has to hold them all. */
static void watch_prefix(sim *s, node *from, pipe_end *e, const pd_item *it) {
    uint8_t bytes[PD_PIECE_MAX];
    uint32_t log = log_of(e, it->u.part.log), count = it->u.part.count;
    size_t got =
        log == NOBODY ? 0 : disk_read(s, from, log, it->u.part.offset, bytes, (size_t)count);
    if (got < count || memcmp(bytes, it->u.part.bytes, got))
        sim_fail(s, SAFETY, "S12", "node %u sends bytes from before a base that it does not hold",
                 from->index);
}

static void watch_heads(sim *s, node *from, pipe_end *e, const pd_item *it) {
    pd_heads_walk w;
    pd_head h;
    pd_heads_begin(it, &w);
    while (pd_heads_next(&w, &h)) {
        uint32_t log = log_of(e, h.log);
        uint64_t held = log == NOBODY ? 0 : disk_log(s, from, log)->n;
        if (h.n > held)
            sim_fail(s, SAFETY, "S12",
                     "node %u announces %llu bytes of a log of which it holds %llu", from->index,
                     (unsigned long long)h.n, (unsigned long long)held);
    }
}

/* Repair is patient: the same bytes are not asked for again on a session before half of the first
 * wait is over. From 0 an author's whole log is asked for once more, to prove a fork. */
static void watch_pull(sim *s, node *from, pipe_end *e, const pd_item *it) {
    uint32_t theirs = it->u.pull.log;
    from->pulls++;
    sim_say(s, "n%u asks n%u for its log %u from %llu", from->index,
            path_other(s, e->session)->node, theirs, (unsigned long long)it->u.pull.from);
    if (log_of(e, theirs) == NOBODY)
        return;
    last_pull *last = &e->pulled[theirs];
    bool same = last->at && last->from == it->u.pull.from && it->u.pull.from > 0;
    if (same && s->now < last->at + PATIENCE_MS && !s->distrust && !path_rate(s))
        sim_fail(s, SAFETY, "L6", "node %u asks again after %llu ms for the same bytes",
                 from->index, (unsigned long long)(s->now - last->at));
    *last = (last_pull){s->now, it->u.pull.from};
}

void watch_frame(sim *s, node *from, uint64_t session, const uint8_t *p, size_t n) {
    pipe_end *e = path_end(s, session);
    pd_reader r;
    pd_item it;
    uint64_t ack;
    if (n > PD_FRAME_MAX || !pd_frame_open(p, n, &r, &ack)) {
        sim_fail(s, SAFETY, "S9", "node %u sends a frame that is none", from->index);
        return;
    }
    while (!s->code && pd_frame_next(&r, &it)) {
        if (it.kind == PD_ITEM_HELLO)
            watch_hello(s, from, e, path_other(s, session), it.u.hello.memb_hash);
        else if (it.kind == PD_ITEM_ALIAS)
            learn_alias(s, e, it.u.alias.alias, &it.u.alias.author);
        else if (it.kind == PD_ITEM_SEG || it.kind == PD_ITEM_CTL)
            watch_segment(s, from, e, &it);
        else if (it.kind == PD_ITEM_HEADS || it.kind == PD_ITEM_VV)
            watch_heads(s, from, e, &it);
        else if (it.kind == PD_ITEM_PREFIXA)
            watch_prefix(s, from, e, &it);
        else if (it.kind == PD_ITEM_PULL)
            watch_pull(s, from, e, &it);
    }
    if (!r.ok)
        sim_fail(s, SAFETY, "S9", "node %u sends an item that does not parse", from->index);
}

/* ---- listening before speaking ---- */

/* A node begins to speak at a step that is out already.  If any three sessions would have shown it,
 * it did not listen; if only a few nodes hold the newer bytes and it heard others, the fork is what
 * a restored disk may cost. */
static void watch_fork(sim *s, node *n, uint32_t log, uint64_t step) {
    uint32_t live = 0, holders = 0;
    for (uint32_t i = 0; i < s->n_members; i++) {
        const node *o = &s->nodes[i];
        if (i == n->index || !o->core || o->started + 60000 > s->now)
            continue;
        live++;
        holders += log < o->n_logs && o->logs[log].n > step;
    }
    if (holders && holders + 2 >= live && !s->distrust)
        sim_fail(s, SAFETY, "S1",
                 "node %u speaks at step %llu without having listened: %u of %u members hold more",
                 n->index, (unsigned long long)step, holders, live);
    else
        disk_fork(s, n);
}

void watch_speaking(sim *s, node *n) {
    pd_author a;
    uint64_t step;
    if (n->spoke || !pd_core_may_speak(n->core, &a, &step))
        return;
    n->spoke = true;
    n->restored = false; /* the instance token is written anew */
    uint32_t log = log_number(s, &a, PD_STREAM_GRADIENTS);
    const truth *t = &s->truths[log];
    sim_say(s, "n%u speaks as incarnation %u from step %llu", n->index, a.inc,
            (unsigned long long)step);
    if (!t->forked && t->seen > step)
        watch_fork(s, n, log, step);
}

/* ---- after a step ---- */

/* What one honest node did never makes another refuse it, whatever a third one does.  Who is
 * refused has its score cleared, so only the line that says so tells of it. */
void watch_note(sim *s, const node *n, const char *text) {
    const char *said = strstr(text, " is refused for ");
    char key[9];
    for (uint32_t i = 0; said && said - text >= 8 && i < s->n_nodes; i++) {
        const node *who = &s->nodes[i];
        pd_hex(who->id.pub, 4, key);
        if (!strncmp(said - 8, key, 8) && !who->evil_now && !who->forked)
            sim_fail(s, SAFETY, "S8", "node %u refuses honest node %u: %s", n->index, i, text);
    }
}

void watch_core(sim *s, node *n) {
    enum { EVERY = 8 }; /* steps between looks at all of a core's state */
    char why[128];
    pd_core_status st;
    watch_speaking(s, n);
    if (n->n_sessions > PD_SESSIONS_MAX + s->n_nodes) /* those on their way up count here */
        sim_fail(s, SAFETY, "S9", "node %u has %u sessions", n->index, n->n_sessions);
    if (s->steps % EVERY || s->code)
        return;
    if (!pd_core_check(n->core, why, sizeof why))
        sim_fail(s, SAFETY, "S9", "node %u: %s", n->index, why);
    pd_core_status_get(n->core, core_time(s), &st);
    sim_mix(s, st.vv_hash ^ st.bytes_in << 20 ^ st.bytes_out << 40);
    if (!s->distrust && (st.bad_seals || st.bad_frames))
        sim_fail(s, SAFETY, "S8",
                 "node %u counts %llu seals and %llu frames of honest nodes as bad", n->index,
                 (unsigned long long)st.bad_seals, (unsigned long long)st.bad_frames);
}
