/* table.c - what a gradient costs on a thin, lossy path: the rows of the reference design's table
 * of dissemination.
 *
 * Every author makes one record a second and seals K of them at a time, each at its own moment;
 * after the rounds in which the trees grow everything sent is counted, framing of ZMTP, CURVE, TCP
 * and IP included (acknowledgements of TCP are not).  The cores are whole, the watchers of watch.c
 * are off: a table measures and does not judge.
 *
 * In a run of many thousands a table of all members at every node would not fit one machine.  There
 * only the authors and a few hundred others have keys, and the nodes that only relay share these:
 * whoever dials such a key gets one of them.
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    SETTLE_ROUNDS = 3,
    ROUNDS = 3,
    LARGE = 500,     /* nodes from which on one round less is run before and while measuring, ... */
    KEYS_ALL = 4000, /* ... and two less while measuring above these, where not each has a key */
    KEYS_RELAYS = 56,
    TAIL_MS = 300000, /* time for what was sealed while measuring to arrive */
    TAIL_STEP_MS = 5000,
    START_MS = 3000,
};

/* What a gradient's bytes are spent for. */
typedef enum cost {
    COST_GRADIENTS,
    COST_SEALS,
    COST_HEADS,
    COST_TREES,
    COST_PULLS,
    COST_SUMMARIES,
    COST_VECTORS,
    COST_SESSIONS,
    COST_PINGS,
    COST_CONTROL,
    COST_FRAMING, /* of frames with segments ... */
    COST_FRAMING_OTHER,
    COSTS
} cost;
static const char *const cost_name[COSTS] = {"gradients", "seals",     "heads",   "prunes",
                                             "pulls",     "summaries", "vectors", "sessions",
                                             "pings",     "control",   "framing", "other framing"};

struct tally {
    uint64_t from, to; /* what is sealed in this time, and sent, is counted */
    uint64_t bytes[COSTS];
    uint64_t sent, fresh; /* gradients in segments; of them, taken in */
    uint64_t got;         /* seals, at their receivers */
    uint64_t *latency;
    size_t room;
};

void table_plan(sim *s) {
    uint32_t less = s->n_nodes >= LARGE, least = s->n_nodes > KEYS_ALL;
    uint32_t rounds = s->o.t.rounds ? s->o.t.rounds : ROUNDS - less - least;
    uint32_t settle = s->o.t.settle ? s->o.t.settle : SETTLE_ROUNDS - less;
    s->seal_ms = s->o.t.records_a_seal * 1000;
    s->buffer_bytes = 65536;
    s->tally = calloc(1, sizeof *s->tally);
    if (!s->tally)
        abort();
    s->tally->from = START_MS + (uint64_t)settle * s->seal_ms;
    s->tally->to = s->tally->from + (uint64_t)rounds * s->seal_ms;
    s->planned = s->until = s->tally->to + TAIL_MS;
}

/* ---- members from the start ---- */

static uint32_t authors(const sim *s) {
    uint32_t n = s->o.t.authors;
    return n && n < s->n_members ? n : s->n_members;
}

/* Nodes with a key of their own; the others have one of the last KEYS_RELAYS of these. */
static uint32_t keys(const sim *s) {
    uint32_t n = authors(s) + KEYS_RELAYS;
    return s->n_members > KEYS_ALL && n < s->n_members ? n : s->n_members;
}

static uint32_t original(const sim *s, uint32_t i) {
    uint32_t n = keys(s);
    return i < n ? i : n - KEYS_RELAYS + (i - n) % KEYS_RELAYS;
}

static void put_log(sim *s, node *author, pd_writer *w, const uint8_t *bytes) {
    pd_author id = {.inc = 0};
    pd_chain chain;
    uint8_t msg[PD_SEAL_MESSAGE_BYTES], seal[64];
    memcpy(id.key, author->id.pub, 32);
    size_t n = (size_t)(w->p - bytes);
    pd_chain_init(&chain, s->run, &id, PD_STREAM_CONTROL);
    pd_chain_add(&chain, bytes, n);
    pd_seal_message(&chain, s->run, &id, PD_STREAM_CONTROL, msg);
    node_sign(author, msg, sizeof msg, seal);
    uint32_t log = log_number(s, &id, PD_STREAM_CONTROL);
    disk_sealed(s, author, log, 0, bytes, n, seal);
    for (uint32_t i = 0; i < s->n_members; i++) {
        disk_append(s, &s->nodes[i], log, 0, bytes, n, seal);
        disk_commit(s, &s->nodes[i]);
    }
}

/* Each key's address, and from the founder everyone's admission. */
void table_members(sim *s) {
    uint32_t n_keys = keys(s);
    size_t room = 128 + 128 * (size_t)n_keys;
    uint8_t *bytes = malloc(room);
    if (!bytes)
        abort();
    for (uint32_t i = 0; i < n_keys; i++) {
        node *n = &s->nodes[i];
        pd_writer w = pd_writer_of(bytes, room);
        for (uint32_t k = 1; i == 0 && k < n_keys; k++) {
            pd_control member = {.kind = PD_RECORD_MEMBER, .invite = k};
            memcpy(member.subject, s->nodes[k].id.pub, 32);
            s->nodes[k].ticket.inviter = 0;
            pd_control_put(&w, &member);
        }
        pd_control addr = {.kind = PD_RECORD_ADDR, .n_addrs = 1};
        addr.addrs[0] = node_addr(n);
        snprintf(addr.name, sizeof addr.name, "n%u", i);
        pd_control_put(&w, &addr);
        put_log(s, n, &w, bytes);
    }
    for (uint32_t i = 0; i < s->n_members; i++) {
        const node *o = &s->nodes[original(s, i)];
        s->nodes[i].member = true;
        s->nodes[i].id = o->id;
        s->nodes[i].secret = o->secret;
        pd_rng r = rng_of(s->o.seed, "start", i);
        sim_push(s, s->now + draw(&r, 0, START_MS - s->now), W_START, i);
    }
    free(bytes);
}

void table_configure(const sim *s, const node *n, pd_core_conf *conf) {
    uint32_t i = original(s, n->index);
    conf->members_max = keys(s);
    conf->solo = true; /* nobody has said anything yet */
    conf->thin = s->o.t.thin;
    conf->repair_ms = s->o.t.repair_ms;
    conf->listen[0] = node_addr(&s->nodes[i]);
    snprintf(conf->name, sizeof conf->name, "n%u", i);
}

void table_started(sim *s, node *n) {
    if (n->index < authors(s))
        sim_push(s, START_MS + draw(&n->r, 0, s->seal_ms), W_GRADIENT, n->index);
}

uint32_t table_place(sim *s, node *from, uint32_t to) {
    uint32_t n = keys(s), first = n - KEYS_RELAYS;
    if (n == s->n_members || to < first || to >= n)
        return to;
    uint32_t places = (s->n_members - 1 - to) / KEYS_RELAYS + 1;
    return to + KEYS_RELAYS * (uint32_t)draw(&from->r, 0, places - 1);
}

/* ---- what is counted ---- */

static cost cost_of(pd_item_kind kind) {
    switch (kind) {
    case PD_ITEM_HEADS:
        return COST_HEADS;
    case PD_ITEM_PRUNE:
        return COST_TREES;
    case PD_ITEM_PULL:
    case PD_ITEM_GRAFT:
        return COST_PULLS;
    case PD_ITEM_SUMMARY:
        return COST_SUMMARIES;
    case PD_ITEM_VV:
    case PD_ITEM_ALIAS:
        return COST_VECTORS;
    case PD_ITEM_PING:
    case PD_ITEM_PONG:
        return COST_PINGS;
    case PD_ITEM_CTL:
        return COST_CONTROL;
    default:
        return COST_SESSIONS;
    }
}

void table_frame(sim *s, const uint8_t *p, size_t n) {
    tally *t = s->tally;
    pd_reader r;
    pd_item it;
    uint64_t ack, items = 0;
    bool data = false;
    if (s->now < t->from || s->now >= t->to || !pd_frame_open(p, n, &r, &ack))
        return;
    for (const uint8_t *at = r.p; pd_frame_next(&r, &it); at = r.p) {
        uint64_t size = (uint64_t)(r.p - at);
        items += size;
        if (it.kind != PD_ITEM_SEG) {
            t->bytes[cost_of(it.kind)] += size;
            continue;
        }
        data = true;
        t->sent += it.u.seg.count;
        t->bytes[COST_GRADIENTS] += it.u.seg.count;
        t->bytes[COST_SEALS] += size - it.u.seg.count;
    }
    t->bytes[data ? COST_FRAMING : COST_FRAMING_OTHER] += path_wire_bytes(n) - items;
}

static void accepted(sim *s, const node *n, const truth *log, uint64_t from, uint64_t to) {
    tally *t = s->tally;
    if (n->index == log->owner)
        return;
    t->fresh += s->now < t->to ? to - from : 0;
    for (uint32_t i = log->n_seals; i && log->seals[i - 1].n > from; i--) {
        uint64_t born = log->born[i - 1];
        if (log->seals[i - 1].n > to || born < t->from || born >= t->to)
            continue;
        if (t->got == t->room) {
            t->room = t->room ? 2 * t->room : 4096;
            t->latency = realloc(t->latency, t->room * sizeof *t->latency);
            if (!t->latency)
                abort();
        }
        t->latency[t->got++] = s->now - born;
    }
}

/* Seals that are to arrive, at each of the nodes alive. */
static uint64_t wanted(const sim *s) {
    uint64_t seals = 0, alive = 0;
    for (uint32_t i = 0; i < s->n_members; i++)
        alive += s->nodes[i].up;
    for (uint32_t k = PD_STREAM_GRADIENTS; k < s->n_authors * PD_STREAMS; k += PD_STREAMS)
        for (uint32_t i = 0; i < s->truths[k].n_seals; i++) {
            uint64_t born = s->truths[k].born[i];
            seals += born >= s->tally->from && born < s->tally->to;
        }
    return seals * (alive - 1);
}

/* All at once and without a word, as when a machine room loses its power. */
static void die(sim *s) {
    pd_rng r = rng_of(s->o.seed, "die", 0);
    for (uint32_t left = (uint32_t)((uint64_t)s->n_members * s->o.t.dies / 100); left;) {
        node *n = &s->nodes[draw(&r, 0, s->n_members - 1)];
        left -= n->up;
        node_crash(s, n, &r, true);
    }
}

/* ---- a row ---- */

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double quantile(const tally *t, double q) {
    return t->got ? (double)t->latency[(size_t)((double)(t->got - 1) * q)] / 1000 : 0;
}

typedef struct figures {
    double copies, delivered, p50, p99, last, a_gradient[COSTS], all, mean, most;
} figures;

static figures measure(const sim *s, const uint64_t *out) {
    tally *t = s->tally;
    figures f = {0};
    uint64_t sum = 0, most = 0, alive = 0;
    double seconds = (double)(t->to - t->from) / 1000, fresh = t->fresh ? (double)t->fresh : 1;
    for (uint32_t i = 0; i < s->n_members; i++) {
        sum += out[i];
        alive += s->nodes[i].up;
        most = out[i] > most ? out[i] : most;
    }
    if (t->got)
        qsort(t->latency, t->got, sizeof *t->latency, by_size);
    f.copies = (double)t->sent / fresh;
    f.delivered = 100 * (double)t->got / (double)wanted(s);
    f.p50 = quantile(t, 0.5);
    f.p99 = quantile(t, 0.99);
    f.last = quantile(t, 1);
    for (int i = 0; i < COSTS; i++)
        f.a_gradient[i] = (double)t->bytes[i] / fresh;
    f.all = (double)sum / fresh;
    f.mean = (double)sum / (double)alive / seconds;
    f.most = (double)most / seconds;
    return f;
}

static void print(const sim *s, const figures *f) {
    const table_options *t = &s->o.t;
    uint32_t n_authors = authors(s);
    if (!t->json) {
        printf("%6u %7u %6u %5u%% %4s %6u %7.3f %8.3f %6.1f %6.1f %6.1f %6.2f %6.0f %6.0f\n",
               s->n_members, n_authors, t->records_a_seal, t->dies, t->thin ? "yes" : "no",
               t->repair_ms, f->copies, f->delivered, f->p50, f->p99, f->last, f->all, f->mean,
               f->most);
        printf("       ");
        for (int i = 0; i < COSTS; i++)
            if (f->a_gradient[i] >= 0.0005)
                printf("%s %.3f  ", cost_name[i], f->a_gradient[i]);
        printf("\n");
        return;
    }
    printf("{\"seed\":%llu,\"nodes\":%u,\"authors\":%u,\"records\":%u,\"dies\":%u,\"thin\":%s,"
           "\"repair_ms\":%u,\"copies\":%.4f,\"delivered\":%.4f,\"p50_s\":%.3f,\"p99_s\":%.3f,"
           "\"max_s\":%.3f,\"bytes\":%.4f,\"mean_bytes_s\":%.0f,\"most_bytes_s\":%.0f,\"of\":{",
           (unsigned long long)s->o.seed, s->n_members, n_authors, t->records_a_seal, t->dies,
           t->thin ? "true" : "false", t->repair_ms, f->copies, f->delivered, f->p50, f->p99,
           f->last, f->all, f->mean, f->most);
    for (int i = 0; i < COSTS; i++)
        printf("%s\"%s\":%.4f", i ? "," : "", cost_name[i], f->a_gradient[i]);
    printf("}}\n");
}

static int row(const options *o) {
    sim *s = sim_open(o);
    tally *t = s->tally;
    uint64_t *out = calloc(s->n_members, sizeof *out);
    if (!out)
        abort();
    s->on_accept = accepted;
    sim_run(s, t->from - 1);
    t->fresh = 0; /* what came before does not count */
    for (uint32_t i = 0; i < s->n_members; i++)
        out[i] -= s->nodes[i].bytes_out;
    die(s);
    sim_run(s, t->to - 1);
    for (uint32_t i = 0; i < s->n_members; i++)
        out[i] += s->nodes[i].bytes_out;
    s->working = false;
    while (!s->code && s->now < s->until && t->got < wanted(s))
        sim_run(s, s->now + TAIL_STEP_MS);
    figures f = measure(s, out);
    print(s, &f);
    int code = s->code;
    if (code)
        printf("%s\n", s->failure);
    fflush(stdout);
    free(t->latency);
    free(t);
    free(out);
    sim_close(s);
    return code;
}

typedef struct preset {
    uint32_t nodes;
    table_options t;
} preset;
static const preset small[] = {
    {2, {.records_a_seal = 60}},   {4, {.records_a_seal = 60}},   {8, {.records_a_seal = 60}},
    {10, {.records_a_seal = 60}},  {16, {.records_a_seal = 60}},  {16, {.records_a_seal = 300}},
    {16, {.records_a_seal = 600}}, {100, {.records_a_seal = 60}}, {300, {.records_a_seal = 60}}};
static const preset large[] = {{1000, {.records_a_seal = 60}},
                               {1000, {.records_a_seal = 60, .thin = true}},
                               {1000, {.records_a_seal = 300, .thin = true}},
                               {1000, {.records_a_seal = 600, .thin = true}},
                               {1000, {.records_a_seal = 1200, .thin = true}},
                               {1000, {.records_a_seal = 60, .dies = 10}},
                               {1000, {.records_a_seal = 60, .dies = 30}},
                               {1000, {.records_a_seal = 60, .thin = true, .repair_ms = 1000}},
                               {10000, {.records_a_seal = 60, .authors = 40}}};

int table_print(const options *o) {
    const preset *rows = o->t.large ? large : small;
    size_t n = o->t.large ? sizeof large / sizeof *large : sizeof small / sizeof *small;
    options one = *o;
    one.table = true;
    if (!o->t.json)
        printf("peersim --table --seed %llu\n%6s %7s %6s %6s %4s %6s %7s %8s %6s %6s %6s %6s %6s "
               "%6s\n",
               (unsigned long long)o->seed, "N", "authors", "K", "die", "thin", "T_rep", "copies",
               "arrive%", "p50 s", "p99 s", "max s", "B/gr", "B/s", "most");
    if (o->nodes) {
        one.t.records_a_seal = o->t.records_a_seal ? o->t.records_a_seal : 60;
        return row(&one);
    }
    int code = 0;
    for (size_t i = 0; i < n && !code; i++) {
        one.nodes = rows[i].nodes;
        one.t = rows[i].t;
        one.t.json = o->t.json;
        code = row(&one);
    }
    return code;
}
