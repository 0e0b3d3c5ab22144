/* judge.c - what must have happened once the faults are over.
 *
 *   S5, S6  all digests are that of the records that count, folded from nothing: each node's model
 *        was folded as bytes came, and what became void was taken back
 *   S7   what evidence voids begins where the author's logs may part, and only there
 *   S15  and so is that of who began with a checkpoint and folded on from there
 *   L1   all live members hold the same within B(N), and nobody misses anything
 *   L2   what was durable on an honest disk is held by everyone
 *   L3   what was made is sealed within T_seal + 5 s
 *   L4   everyone has min(4, N - 1) links or more; in a full mesh all of them
 *   L5   then, with records being made again: at most 1.05 copies and, in a full mesh, no repairs
 *   L9   what counts of each log is the same everywhere and what rule.c finds; who was forked
 * trains L10  who left, came back or moved is a member like any other: it is among those who agree
 *
 *   B(N) = 10 T_sync + 2 T_rep_max + bytes / goodput
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    SYNC_MS = 30000,
    REPAIR_MAX_MS = 300000,
    LISTEN_MS = 360000, /* a backup put back just now */
    LATE_MS = 5000,
    STEADY_MS = 60000,
    AFTERMATH_MS = 100000, /* a session that a fault broke may take a minute to die of it */
    LEAST_LINKS = 4,
    GIVE_UP = 3, /* bounds until a run counts as never agreeing */
};

/* A clone is no member of its own; who is out by the rule is none any more. */
static bool is_live(const node *n) {
    bool waits_to_join = !n->member && n->index < n->world->n_members;
    return n->twin == NOBODY && !n->gone && !n->evil_now &&
           (waits_to_join || (n->member && !n->out));
}

/* Who is out, by the logs of the founder: it never leaves, nor turns. */
static void find_out(sim *s) {
    rule r;
    if (!s->strict)
        return;
    rule_find(s, &s->nodes[0], &r);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        s->nodes[i].out = !r.admitted[i] || r.banned[i];
    rule_free(&r);
}

static uint64_t bound_ms(const sim *s) {
    uint64_t bytes = 0, rate = path_rate(s);
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++)
        bytes += s->truths[log].n + 100;
    uint64_t carried = rate ? 2 * bytes * s->n_members * 1000 / rate : 0;
    return 10 * SYNC_MS + 2 * REPAIR_MAX_MS + LISTEN_MS + carried;
}

/* ---- agreement ---- */

static bool log_agrees(const sim *s, const node *n, uint32_t log, char *why, size_t room) {
    const truth *t = &s->truths[log];
    uint64_t held = log < n->n_logs ? n->logs[log].n : 0;
    if (t->forked || s->nodes[t->owner].out || held == t->seen)
        return true;
    snprintf(why, room, "node %u holds %llu of %llu bytes of node %u (inc %u, stream %u)", n->index,
             (unsigned long long)held, (unsigned long long)t->seen, t->owner, t->author.inc,
             t->stream);
    return false;
}

/* A member that is gone counts for a day in the cores, so whether they make a mesh shows in how
 * many there ever were. */
static bool is_mesh(const sim *s) {
    return s->n_members <= PD_MESH_MAX;
}

static uint32_t links_wanted(const sim *s) {
    uint32_t live = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        live += is_live(&s->nodes[i]);
    return is_mesh(s) || live <= LEAST_LINKS ? live - 1 : LEAST_LINKS;
}

static bool node_agrees(sim *s, const node *n, uint32_t links, uint64_t *sum, char *why,
                        size_t room) {
    pd_core_status st;
    if (!n->core || !n->member) {
        snprintf(why, room, "node %u is not running", n->index);
        return false;
    }
    pd_core_status_get(n->core, core_time(s), &st);
    bool speaks = st.voice == PD_VOICE_SPEAKING && st.unsealed == 0;
    if (!speaks || st.links < links || (st.missing && !s->distrust)) {
        snprintf(why, room, "node %u: voice %d, %u unsealed, %u links of %u, %llu missing",
                 n->index, (int)st.voice, st.unsealed, st.links, links,
                 (unsigned long long)st.missing);
        return false;
    }
    if (n->hold || !disk_is_whole(s, n)) {
        snprintf(why, room, "node %u has not replayed what is before its checkpoint", n->index);
        return false;
    }
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++)
        if (!log_agrees(s, n, log, why, room))
            return false;
    if (!*sum)
        *sum = st.vv_hash;
    if (*sum != st.vv_hash)
        snprintf(why, room, "node %u knows other records, or other forks, than those before it",
                 n->index);
    return *sum == st.vv_hash;
}

bool judge_converged(sim *s, char *why, size_t room) {
    find_out(s);
    uint32_t links = links_wanted(s);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        if (is_live(&s->nodes[i]) && !node_agrees(s, &s->nodes[i], links, &sum, why, room))
            return false;
    return true;
}

static void judge_kept(sim *s) {
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++) {
        const truth *t = &s->truths[log];
        uint64_t whole = t->forked ? t->fork_from : PD_VOID_NEVER;
        uint64_t kept = t->kept < whole ? t->kept : whole, held = disk_log(s, &s->nodes[0], log)->n;
        if (!s->nodes[t->owner].out && held < kept)
            sim_fail(s, LIVENESS, "L2",
                     "acknowledged bytes of node %u are missing: %llu of %llu (stream %u)",
                     t->owner, (unsigned long long)held, (unsigned long long)kept, t->stream);
    }
}

/* What counts of each log, at each node, is what the rule says; and the rule hits no one else. */
static void judge_voids(sim *s, const rule *r) {
    for (uint32_t log = 0; log < r->n_logs; log++) {
        const truth *t = &s->truths[log];
        uint64_t counts =
            r->counts[log] - (r->counts[log] != PD_VOID_NEVER && BROKEN(s, BROKEN_RULE));
        if (r->void_at[log] != PD_VOID_NEVER && (!t->forked || r->void_at[log] < t->fork_from))
            sim_fail(s, SAFETY, "S7", "evidence against node %u, whose logs do not part at %llu",
                     t->owner, (unsigned long long)r->void_at[log]);
        if (t->stream != PD_STREAM_GRADIENTS || disk_log(s, &s->nodes[0], log)->n == 0)
            continue;
        for (uint32_t i = 0; i < s->n_nodes; i++) {
            const node *n = &s->nodes[i];
            uint64_t got = n->core && is_live(n) ? pd_core_void_at(n->core, &t->author) : counts;
            if (got != counts)
                sim_fail(s, LIVENESS, "L9",
                         "node %u counts %llu records of node %u (inc %u), the rule %llu", i,
                         (unsigned long long)got, t->owner, t->author.inc,
                         (unsigned long long)counts);
        }
    }
}

/* The digest of every live node is that of the records that count, folded from nothing. */
static void judge_digests(sim *s, const rule *r) {
    int32_t a[COORDS] = {0};
    uint8_t right[16], got[16];
    bool one = false;
    for (uint32_t log = 0; log < r->n_logs; log++) {
        const truth *t = &s->truths[log];
        const slog *l = disk_log(s, &s->nodes[0], log);
        uint64_t n = l->n < r->counts[log] ? l->n : r->counts[log];
        if (t->stream == PD_STREAM_GRADIENTS && n)
            pd_replay_fold(&s->replay, a, COORDS, &t->author, 0, l->own ? l->own->bytes : t->bytes,
                           (size_t)n);
    }
    pd_replay_digest(a, COORDS, right);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        bool begun = s->nodes[i].begun;
        bool may_differ = s->strict || begun || !one || i + 1 == s->n_members;
        if (!is_live(&s->nodes[i]) || !may_differ) /* bytes are shared: two say it for all */
            continue;
        one = true;
        node_digest(s, &s->nodes[i], got);
        if (memcmp(right, got, 16))
            sim_fail(s, SAFETY, begun ? "S15" : "S5",
                     "node %u has another digest than the records that count give", i);
    }
}

static void judge_agreed(sim *s) {
    rule r;
    judge_kept(s);
    rule_find(s, &s->nodes[0], &r);
    judge_voids(s, &r);
    judge_digests(s, &r);
    rule_free(&r);
}

/* ---- the phases ---- */

/* A member whose others are all gone for good listens for ever; its people know, and start it with
 * solo. */
static void restart_the_last(sim *s) {
    pd_rng r = rng_of(s->o.seed, "last", 0);
    node *last = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        if (s->nodes[i].member && is_live(&s->nodes[i])) {
            last = &s->nodes[i];
            n++;
        }
    if (n != 1)
        return;
    last->solo = true;
    node_crash(s, last, &r, false);
    sim_push(s, s->now, W_START, last->index);
}

static void heal(sim *s) {
    sim_say(s, "-- all faults are over");
    s->healed = true;
    s->working = false;
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        node *n = &s->nodes[i];
        n->copied = false; /* copies are switched off */
        if (n->puppet || (n->twin != NOBODY && n->up))
            node_halt(s, n);
        else if (is_live(n))
            sim_push(s, s->now, W_START, i);
        if (n->busy_until > s->now) /* a stopped process goes on */
            n->busy_until = s->now;
    }
    find_out(s); /* whom the last one bans it never hears again */
    restart_the_last(s);
    disk_forget(s); /* what a restart lost, too */
    if (BROKEN(s, BROKEN_PROCESS))
        abort();
}

/* All disks forget their newest seal while nobody runs: what was acknowledged is gone. */
static void lose_seals(sim *s) {
    pd_rng r = rng_of(s->o.seed, "broken", 0);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        node_crash(s, &s->nodes[i], &r, false);
    disk_lose_last_seals(s);
}

static bool is_judgeable(const sim *s) {
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++)
        if (s->truths[log].stream == PD_STREAM_GRADIENTS && s->truths[log].n)
            return true;
    return false;
}

static bool unsealed_late(sim *s) {
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        pd_core_status st;
        const node *n = &s->nodes[i];
        if (!n->core || !is_live(n) || n->started + STEADY_MS > s->now)
            continue;
        pd_core_status_get(n->core, core_time(s), &st);
        if (st.voice == PD_VOICE_SPEAKING && st.unsealed && st.unsealed_ms > st.seal_ms + LATE_MS) {
            sim_fail(s, LIVENESS, "L3", "node %u has not sealed for %llu ms", i,
                     (unsigned long long)st.unsealed_ms);
            return true;
        }
    }
    return false;
}

void judge_liveness(sim *s) {
    char why[160] = "";
    uint64_t from = s->now;
    if (BROKEN(s, BROKEN_DISKS))
        lose_seals(s);
    heal(s);
    if (!is_judgeable(s)) {
        sim_fail(s, NO_JUDGE, "atlas", "nobody has made a record");
        return;
    }
    uint64_t bound = bound_ms(s);
    sim_run(s, s->now + 1000);
    while (!s->code && !judge_converged(s, why, sizeof why)) {
        if (s->now > from + GIVE_UP * bound)
            sim_fail(s, LIVENESS, "L1", "no agreement %llu s after healing: %s",
                     (unsigned long long)(s->now - from) / 1000, why);
        for (uint32_t i = 0; i < s->n_nodes; i++)
            if (is_live(&s->nodes[i]) && s->nodes[i].member)
                sim_push(s, s->now, W_START, i);
        sim_run(s, s->now + 1000);
        if (s->now > from + 2 * STEADY_MS + SYNC_MS && !s->code)
            unsealed_late(s);
    }
    if (!s->code && s->now > from + (BROKEN(s, BROKEN_BOUND) ? 0 : bound))
        sim_fail(s, BOUND, "L1", "agreement took %llu s, the bound is %llu s",
                 (unsigned long long)(s->now - from) / 1000, (unsigned long long)bound / 1000);
    if (!s->code)
        judge_agreed(s);
}

static uint64_t pulls_sent(const sim *s) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        n += s->nodes[i].pulls;
    return n;
}

static uint64_t steps_made(const sim *s, const node *n) {
    pd_core_status st;
    pd_core_status_get(n->core, core_time(s), &st);
    return st.step;
}

/* Every live member makes records that count, who was forked or banned another as well. */
static void judge_training(sim *s, const uint64_t *before) {
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const node *n = &s->nodes[i];
        bool busy = n->gap_ms * 3 / 2 < STEADY_MS;
        if (busy && n->core && is_live(n) && before[i] != PD_VOID_NEVER &&
            steps_made(s, n) <= before[i])
            sim_fail(s, LIVENESS, n->forked ? "L9" : "L3", "node %u makes no records any more", i);
    }
}

/* Records for a while, then none until all agree; false: they do not. */
static bool work_and_rest(sim *s) {
    enum { REST_S = 120 };
    char why[160];
    s->working = true;
    sim_run(s, s->now + STEADY_MS);
    s->working = false;
    for (unsigned i = 0; i < REST_S && !judge_converged(s, why, sizeof why); i++)
        sim_run(s, s->now + 1000);
    return judge_converged(s, why, sizeof why);
}

/* Records again, without faults: what costs the least must also be what happens.  Not at once: a
 * log that was asked for elsewhere while its author could not be reached comes from both until two
 * of its seals have come twice. */
void judge_steady(sim *s) {
    sim_run(s, s->until + AFTERMATH_MS);
    (void)work_and_rest(s);
    uint64_t sent = s->segment_bytes, pulls = pulls_sent(s), records = s->records, live = 0;
    for (uint32_t i = 0; i < s->n_nodes; i++)
        live += is_live(&s->nodes[i]);
    uint64_t *made = malloc(s->n_nodes * sizeof *made);
    if (!made)
        abort();
    for (uint32_t i = 0; i < s->n_nodes; i++)
        made[i] = s->nodes[i].core ? steps_made(s, &s->nodes[i]) : PD_VOID_NEVER;
    bool agreed = work_and_rest(s);
    if (!s->code)
        judge_training(s, made);
    free(made);
    /* a thin link may still be at it; who was lied to or doubled asks more often */
    if (s->code || unsealed_late(s) || s->distrust || path_rate(s) || !agreed)
        return;
    uint64_t fresh = (s->records - records) * (live - 1);
    sent = s->segment_bytes - sent;
    if (sent * 100 > fresh * 105 + 6400)
        sim_fail(s, LIVENESS, "L5", "%llu bytes sent for %llu fresh ones without any fault",
                 (unsigned long long)sent, (unsigned long long)fresh);
    if (is_mesh(s) && pulls_sent(s) > pulls) /* elsewhere a GRAFT is how a tree grows */
        sim_fail(s, LIVENESS, "L5", "%llu repairs without any fault",
                 (unsigned long long)(pulls_sent(s) - pulls));
}
