/* sim.c - the world's clock: a tree of seeds, one heap of events, the run from first to last. */
#include "sim.h"

#include "peerd/digest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- randomness ---- */

uint64_t seed_of(uint64_t seed, const char *name, uint64_t number) {
    uint8_t b[40] = {0};
    size_t n = strlen(name);
    memcpy(b, name, n < 32 ? n : 32);
    pd_store64(b + 32, number);
    return pd_xxh64(b, sizeof b, seed);
}

uint64_t draw(pd_rng *r, uint64_t lo, uint64_t hi) {
    return hi <= lo ? lo : lo + pd_rng_next(r) % (hi - lo + 1);
}

bool percent(pd_rng *r, unsigned p) {
    return draw(r, 0, 99) < p;
}

uint64_t draw_log(pd_rng *r, uint64_t lo, uint64_t hi) {
    unsigned doublings = 0;
    while (lo << (doublings + 1) <= hi)
        doublings++;
    uint64_t from = lo << draw(r, 0, doublings);
    return draw(r, from, from * 2 < hi ? from * 2 : hi);
}

void *grow(void *p, uint32_t *room, uint32_t n, size_t size) {
    if (n <= *room)
        return p;
    uint32_t more = *room * 2 > n ? *room * 2 : n + 8;
    p = realloc(p, more * size);
    if (!p)
        abort();
    memset((uint8_t *)p + *room * size, 0, (more - *room) * size);
    *room = more;
    return p;
}

/* ---- the verdict and the trace ---- */

void sim_fail(sim *s, int code, const char *law, const char *fmt, ...) {
    if (s->code)
        return;
    s->code = code;
    snprintf(s->law, sizeof s->law, "%s", law);
    int at = snprintf(s->failure, sizeof s->failure, "%s at %llu.%03llu s: ", law,
                      (unsigned long long)s->now / 1000, (unsigned long long)s->now % 1000);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->failure + at, sizeof s->failure - (size_t)at, fmt, ap);
    va_end(ap);
    sim_say(s, "%s", s->failure);
}

void sim_mix(sim *s, uint64_t v) {
    s->trace = (s->trace ^ v) * UINT64_C(0x9fb21c651e98df25);
    s->trace ^= s->trace >> 29;
}

void sim_say(sim *s, const char *fmt, ...) {
    if (!s->o.tracing)
        return;
    char *line = s->words[s->n_words++ % WORDS_KEPT];
    int at = snprintf(line, sizeof s->words[0], "%8llu.%03llu ", (unsigned long long)s->now / 1000,
                      (unsigned long long)s->now % 1000);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + at, sizeof s->words[0] - (size_t)at, fmt, ap);
    va_end(ap);
    if (s->trace_file)
        fprintf(s->trace_file, "%s\n", line);
}

void sim_last_words(const sim *s) {
    for (uint64_t i = s->n_words > WORDS_KEPT ? s->n_words - WORDS_KEPT : 0; i < s->n_words; i++)
        printf("  %s\n", s->words[i % WORDS_KEPT]);
    fflush(stdout);
}

/* ---- the heap ---- */

static bool before(const happening *a, const happening *b) {
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

happening *sim_push(sim *s, uint64_t at, event_kind kind, uint32_t n) {
    if (s->n_heap == s->room_heap) {
        s->room_heap = s->room_heap ? 2 * s->room_heap : 1024;
        s->heap = realloc(s->heap, s->room_heap * sizeof *s->heap);
        if (!s->heap)
            abort();
    }
    happening h = {.at = at < s->now ? s->now : at, .seq = ++s->seq, .kind = kind, .node = n};
    h.epoch = n < s->n_nodes ? s->nodes[n].epoch : 0;
    size_t i = s->n_heap++;
    for (; i && before(&h, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = h;
    return &s->heap[i];
}

static happening pop(sim *s) {
    happening first = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t k = 1; k < s->n_heap; k = 2 * i + 1) {
        k += k + 1 < s->n_heap && before(&s->heap[k + 1], &s->heap[k]);
        if (!before(&s->heap[k], &last))
            break;
        s->heap[i] = s->heap[k];
        i = k;
    }
    s->heap[i] = last;
    return first;
}

static void happen(sim *s, happening *h) {
    if (h->kind == W_FAULT)
        fault_begin(s, (uint32_t)h->a);
    else if (h->kind == W_FAULT_END)
        fault_end(s, (uint32_t)h->a);
    else
        node_happen(s, &s->nodes[h->node], h);
}

enum {
    SPIN_MAX = 400
}; /* events a node may need without time passing: joins, restarts, full frames */

void sim_run(sim *s, uint64_t until) {
    uint64_t at = 0, since = 0;
    while (!s->code && s->n_heap && s->heap[0].at <= until) {
        happening h = pop(s);
        if (h.at > at) {
            at = h.at;
            since = s->steps;
        } else if (s->steps - since > SPIN_MAX * (uint64_t)s->n_nodes)
            sim_fail(s, SAFETY, "S9", "node %u spins without time passing (event %d)", h.node,
                     (int)h.kind);
        s->now = h.at;
        happen(s, &h);
        free(h.p);
    }
    if (!s->code && s->now < until)
        s->now = until;
}

/* ---- opening ---- */

node *sim_node_of(sim *s, const uint8_t key[32]) {
    uint32_t hint = pd_load32(key + 28);
    if (hint < s->n_nodes && !memcmp(s->nodes[hint].id.pub, key, 32))
        return &s->nodes[hint];
    for (uint32_t i = 0; s->o.ed25519 && i < s->n_members; i++)
        if (!memcmp(s->nodes[i].id.pub, key, 32))
            return &s->nodes[i];
    return NULL;
}

static void make_run(sim *s) {
    pd_manifest *r = &s->manifest;
    *r = (pd_manifest){.model_name = "sim",
                       .model_arch = "llama",
                       .space = PD_SPACE_ALIGNED,
                       .rank = 1,
                       .targets = 1};
    r->basis_bytes = 1;
    r->unit_bits = 26;
    r->n_coords = COORDS;
    r->eps = UINT64_C(1) << 33;
    r->scale = UINT64_C(1) << 40;
    r->lr = UINT64_C(1) << 30;
    r->seal_bytes_per_s = 1000;
    r->rate_max = 20;
    r->invites_max = 8;
    memcpy(r->founder, s->nodes[0].id.pub, 32);
    pd_store64(r->nonce, s->o.seed);
    pd_manifest_write(r, s->manifest_text, &s->manifest_bytes);
    pd_manifest_run_id(r, s->run);
    pd_replay_of(r, &s->replay);
}

sim *sim_open(const options *o) {
    sim *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->o = *o;
    s->now = 1000;
    s->working = true;
    s->actions = malloc(PD_ACTIONS_MAX * sizeof *s->actions);
    s->words = calloc(WORDS_KEPT, sizeof *s->words);
    if (o->trace_path)
        s->trace_file = fopen(o->trace_path, "w");
    plan_make(s);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        node_init(s, i);
    make_run(s);
    for (uint32_t i = 0; i < s->n_faults; i++)
        if (!s->faults[i].dropped && s->faults[i].at < s->until) {
            sim_push(s, s->faults[i].at, W_FAULT, NOBODY)->a = i;
            sim_push(s, s->faults[i].end < s->until ? s->faults[i].end : s->until, W_FAULT_END,
                     NOBODY)
                ->a = i;
        }
    if (o->table || o->pair)
        table_members(s);
    else
        node_start(s, &s->nodes[0]);
    return s;
}

void sim_close(sim *s) {
    for (size_t i = 0; i < s->n_heap; i++)
        free(s->heap[i].p);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        node_halt(s, &s->nodes[i]);
    for (size_t i = 0; i < s->n_pipes; i++)
        for (unsigned k = 0; s->pipes[i] && k < 2; k++)
            path_down(s, &s->pipes[i]->end[k]);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        node *n = &s->nodes[i];
        disk_free(n);
        node_free_rooms(n);
        free(n->arena);
        free(n->join_arena);
        free(n->sessions);
    }
    for (size_t i = 0; i < s->n_pipes; i++)
        free(s->pipes[i]);
    for (uint32_t i = 0; i < s->n_ckpts; i++)
        free(s->ckpt[i].p);
    for (uint32_t i = 0; i < s->n_authors * PD_STREAMS; i++) {
        free(s->truths[i].bytes);
        free(s->truths[i].seals);
        free(s->truths[i].born);
    }
    if (s->trace_file)
        fclose(s->trace_file);
    free(s->truths);
    free(s->author_of);
    free(s->nodes);
    free(s->faults);
    free(s->by_kind);
    free(s->pipes);
    free(s->heap);
    free(s->actions);
    free(s->waits);
    free(s->words);
    free(s);
}

void sim_judge(sim *s) {
    sim_run(s, s->until);
    if (!s->code)
        judge_liveness(s);
    if (!s->code)
        judge_steady(s);
}
