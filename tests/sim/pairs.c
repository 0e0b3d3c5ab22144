/* pairs.c - laws that need two runs of one seed, or a run of their own, to be told.
 *
 *   S16  a member that stops (SIGSTOP), or in a mesh reads slowly, delays nobody else's records
 *   L8   a member on a line of 64 kbit/s neither: the others' p99 is that of the run without by 10
 * % L7   who comes late over such a line has everything within 1.2 times the formula L6   more
 * records than the lines carry: 80 % of what they carry is still new, no collapse
 *
 * Latency is from the seal to the store of another node, with neither of them the odd one; it is
 * counted in frames of 200 ms and more, so a difference below GRAIN_MS says nothing.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    THIN_BYTES = 8000, /* bytes/s: 64 kbit/s ... */
    GOODPUT = 6900,    /* ... of which TCP carries so much (measured, 5 % loss) */
    SETTLE_MS = 30000, /* until links are up */
    MEASURE_MS = 120000,
    GRAIN_MS = 20,
    BACKLOG = 300000, /* bytes that the late one lacks */
    START_MS = 15000, /* dialling, comparing, one frame: not in the formula */
};

/* ---- the worlds ---- */

/* All are members from the start, on good lines; the last one is the odd one. */
void pairs_plan(sim *s,
                void (*add)(void *ctx, fault_kind kind, uint32_t where, uint64_t at, uint64_t arg),
                void *ctx) {
    uint32_t last = s->n_members - 1;
    add(ctx, F_DELAY, NOBODY, 0, s->o.pair == PAIR_LATE ? 150 : 60);
    if (s->o.pair == PAIR_THIN)
        add(ctx, F_RATE, last, 0, THIN_BYTES);
    if (s->o.pair == PAIR_SILENT)
        add(ctx, F_PAUSE, last, SETTLE_MS / 2, 0);
    if (s->o.pair == PAIR_SLOW)
        add(ctx, F_SLOW_READER, last, SETTLE_MS / 2, 0);
    if (s->o.pair == PAIR_LATE)
        add(ctx, F_RATE, NOBODY, 0, THIN_BYTES);
    if (s->o.pair == PAIR_LATE)
        add(ctx, F_LOSS, NOBODY, 0, 5);
    if (s->o.pair == PAIR_OVERLOAD)
        add(ctx, F_RATE, NOBODY, 0, 1000);
}

static options world(const options *o, pair_kind kind, uint32_t nodes) {
    options w = *o;
    w.pair = kind;
    w.nodes = nodes;
    w.until_ms = SETTLE_MS + MEASURE_MS;
    return w;
}

/* ---- the others' latency ---- */

static void waited(sim *s, const node *n, const truth *t, uint64_t from, uint64_t to) {
    uint32_t last = s->n_members - 1;
    if (n->index == t->owner || n->index == last || t->owner == last || s->now < SETTLE_MS)
        return;
    for (uint32_t i = t->n_seals; i && t->seals[i - 1].n > from; i--) {
        if (t->seals[i - 1].n > to)
            continue;
        s->waits = grow(s->waits, &s->room_waits, s->n_waits + 1, sizeof *s->waits);
        s->waits[s->n_waits++] = s->now - t->born[i - 1];
    }
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int p99(const options *o, pair_kind kind, uint32_t nodes, uint64_t *ms) {
    options w = world(o, kind, nodes);
    sim *s = sim_open(&w);
    s->on_accept = waited;
    sim_run(s, s->until);
    *ms = 0;
    if (s->n_waits) {
        qsort(s->waits, s->n_waits, sizeof *s->waits, by_size);
        *ms = s->waits[(uint64_t)(s->n_waits - 1) * 99 / 100];
    }
    int code = s->code ? s->code : *ms ? OK : LIVENESS;
    if (code)
        printf("%s\n", s->code ? s->failure : "no record came");
    sim_close(s);
    return code;
}

static int compare(const options *o, uint32_t nodes) {
    static const struct {
        pair_kind kind;
        const char *law, *name;
    } odd[] = {
        {PAIR_THIN, "L8", "thin"}, {PAIR_SILENT, "S16", "silent"}, {PAIR_SLOW, "S16", "slow"}};
    uint64_t without, with;
    int code = p99(o, PAIR_EVEN, nodes, &without);
    printf("seed %llu, %u nodes: p99 %llu ms", (unsigned long long)o->seed, nodes,
           (unsigned long long)without);
    for (size_t i = 0; i < sizeof odd / sizeof *odd && !code; i++) {
        if (odd[i].kind == PAIR_SLOW && nodes > PD_MESH_MAX)
            continue; /* whose tree goes through it waits for it */
        code = p99(o, odd[i].kind, nodes, &with);
        printf(", %s %llu", odd[i].name, (unsigned long long)with);
        if (!code && with * 10 > without * 11 + 10 * GRAIN_MS) {
            printf("\n%s: one %s member delays the others\n", odd[i].law, odd[i].name);
            code = odd[i].kind == PAIR_THIN ? LIVENESS : SAFETY;
        }
    }
    printf("\n");
    return code;
}

/* ---- coming late ---- */

/* Node 0 has made BACKLOG records, and only it holds them. */
static void lay_backlog(sim *s) {
    node *n = &s->nodes[0];
    pd_author id = {.inc = 0};
    pd_chain chain;
    pd_rng r = rng_of(s->o.seed, "backlog", 0);
    uint8_t msg[PD_SEAL_MESSAGE_BYTES], seal[64], *bytes = malloc(BACKLOG);
    if (!bytes)
        abort();
    for (uint32_t i = 0; i < BACKLOG; i++) {
        bytes[i] = (uint8_t)pd_rng_next(&r);
        bytes[i] = bytes[i] == PD_BYTE_RESERVED ? 0 : bytes[i];
    }
    memcpy(id.key, n->id.pub, 32);
    pd_chain_init(&chain, s->run, &id, PD_STREAM_GRADIENTS);
    pd_chain_add(&chain, bytes, BACKLOG);
    pd_seal_message(&chain, s->run, &id, PD_STREAM_GRADIENTS, msg);
    node_sign(n, msg, sizeof msg, seal);
    uint32_t log = log_number(s, &id, PD_STREAM_GRADIENTS);
    disk_sealed(s, n, log, 0, bytes, BACKLOG, seal);
    disk_append(s, n, log, 0, bytes, BACKLOG, seal);
    disk_commit(s, n);
    free(bytes);
}

static int late(const options *o) {
    options w = world(o, PAIR_LATE, 2);
    sim *s = sim_open(&w);
    lay_backlog(s);
    s->working = false;
    pd_author id = {.inc = 0};
    memcpy(id.key, s->nodes[0].id.pub, 32);
    uint32_t log = log_number(s, &id, PD_STREAM_GRADIENTS);
    uint64_t formula = (uint64_t)BACKLOG * 1000 / GOODPUT, most = formula * 12 / 10 + START_MS;
    while (!s->code && s->now < 2 * most && disk_log(s, &s->nodes[1], log)->n < BACKLOG)
        sim_run(s, s->now + 100);
    printf("seed %llu: %d bytes over 64 kbit/s in %.1f s, the formula says %.1f s\n",
           (unsigned long long)o->seed, (int)BACKLOG, (double)s->now / 1000,
           (double)formula / 1000);
    int code = s->code ? s->code : s->now > most ? LIVENESS : OK;
    if (code)
        printf("%s\n",
               s->code ? s->failure : "L7: catching up takes more than 1.2 times the formula");
    sim_close(s);
    return code;
}

/* ---- more than the lines carry ---- */

static int overload(const options *o) {
    enum { NODES = 6, LINE = 1000 };
    options w = world(o, PAIR_OVERLOAD, NODES);
    sim *s = sim_open(&w);
    uint64_t data = 0, held = 0;
    sim_run(s, SETTLE_MS);
    uint64_t sent = s->segment_bytes, from = s->now;
    for (uint32_t i = 0; i < NODES; i++) {
        data -= s->nodes[i].data_out;
        for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++)
            held -= s->truths[log].owner == i ? 0 : disk_log(s, &s->nodes[i], log)->n;
    }
    sim_run(s, s->until);
    for (uint32_t i = 0; i < NODES; i++) {
        data += s->nodes[i].data_out;
        for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++)
            held += s->truths[log].owner == i ? 0 : disk_log(s, &s->nodes[i], log)->n;
    }
    sent = s->segment_bytes - sent;
    uint64_t can = (s->now - from) * LINE * NODES / 1000,
             useful = sent ? data / 100 * (held * 100 / sent) : 0;
    printf("seed %llu: of %llu bytes that the lines carry %llu are new records with their frames\n",
           (unsigned long long)o->seed, (unsigned long long)can, (unsigned long long)useful);
    int code = s->code ? s->code : useful * 10 < can * 8 ? LIVENESS : OK;
    if (code)
        printf("%s\n", s->code ? s->failure : "L6: goodput collapses under overload");
    sim_close(s);
    return code;
}

int pairs_judge(const options *o) {
    static const uint32_t sizes[] = {4, 10, 16, 24};
    int code = OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !code; i++)
        code = compare(o, sizes[i]);
    if (!code)
        code = late(o);
    return code ? code : overload(o);
}
