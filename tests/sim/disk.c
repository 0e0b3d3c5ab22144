/* disk.c - what each node remembers, and what was ever sealed.
 *
 * All honest nodes hold prefixes of the same logs, so bytes are kept once, in `truth`, as their
 * author sealed them, and a node keeps lengths: held, durable, as of its snapshot.  Whatever a node
 * stores is compared with that (S1, S3, S4).  Where more than one version of a log is out (its
 * author was cloned, turned or forgot), each node keeps its own bytes of it; that all come to agree
 * on what counts of it is judged at the end.
 */
#include "sim.h"

#include <assert.h>
#include <stdlib.h>

uint32_t log_number(sim *s, const pd_author *a, uint8_t stream) {
    node *n = sim_node_of(s, a->key);
    if (!n || a->inc >= PD_INCARNATIONS)
        return NOBODY;
    uint32_t *author = &s->author_of[n->index * PD_INCARNATIONS + a->inc];
    if (*author == NOBODY) {
        *author = s->n_authors++;
        uint32_t rows = s->room_authors * PD_STREAMS;
        s->truths = grow(s->truths, &rows, s->n_authors * PD_STREAMS, sizeof *s->truths);
        s->room_authors = rows / PD_STREAMS;
        for (uint8_t k = 0; k < PD_STREAMS; k++)
            s->truths[*author * PD_STREAMS + k] =
                (truth){.author = *a, .owner = n->index, .stream = k, .forked = n->copied};
    }
    return *author * PD_STREAMS + stream;
}

slog *disk_log(sim *s, node *n, uint32_t log) {
    (void)s;
    n->logs = grow(n->logs, &n->n_logs, log + 1, sizeof *n->logs);
    return &n->logs[log];
}

static const slog *held(const node *n, uint32_t log) {
    static const slog none;
    return log < n->n_logs ? &n->logs[log] : &none;
}

static const seal_at *find_seal(const truth *t, uint64_t n) {
    uint32_t lo = 0, hi = t->n_seals;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (t->seals[mid].n < n)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n_seals && t->seals[lo].n == n ? &t->seals[lo] : NULL;
}

size_t disk_read(sim *s, const node *n, uint32_t log, uint64_t from, uint8_t *out, size_t room) {
    const slog *l = held(n, log);
    if (from >= l->n || from < disk_base(l))
        return 0;
    size_t size = l->n - from < room ? (size_t)(l->n - from) : room;
    memcpy(out, (l->own ? l->own->bytes : s->truths[log].bytes) + from, size);
    return size;
}

void disk_seal(sim *s, const node *n, uint32_t log, uint8_t seal[64]) {
    const slog *l = held(n, log);
    const seal_at *at = l->own ? NULL : find_seal(&s->truths[log], l->n);
    assert(l->own || at);
    memcpy(seal, l->own ? l->own->seal : at->seal, 64);
}

/* ---- versions ---- */

static void put_bytes(uint8_t **bytes, uint64_t *room, uint64_t at, const uint8_t *p, size_t n) {
    if (at + n > *room) {
        *room = 2 * (at + n) + 64;
        *bytes = realloc(*bytes, *room);
        if (!*bytes)
            abort();
    }
    memcpy(*bytes + at, p, n);
}

/* From here on this node's version is its own. */
static void split_off(sim *s, node *n, uint32_t log) {
    slog *l = disk_log(s, n, log);
    const truth *t = &s->truths[log];
    if (l->own)
        return;
    l->own = calloc(1, sizeof *l->own);
    if (!l->own)
        abort();
    if (l->n)
        put_bytes(&l->own->bytes, &l->own->room, 0, t->bytes, (size_t)l->n);
    const uint64_t at[3] = {l->n, l->durable, l->shadow};
    uint8_t *const seal[3] = {l->own->seal, l->own->durable_seal, l->own->shadow_seal};
    for (unsigned i = 0; i < 3; i++) {
        const seal_at *found = find_seal(t, at[i]);
        if (found)
            memcpy(seal[i], found->seal, 64);
    }
}

void disk_fork(sim *s, node *n) {
    s->distrust = s->strict = n->forked = true;
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++) {
        truth *t = &s->truths[log];
        uint64_t from = held(n, log)->durable;
        if (t->owner != n->index)
            continue;
        if (t->forked && from < t->fork_from)
            t->fork_from = from;
        if (t->forked)
            continue;
        t->fork_from = from;
        for (uint32_t i = 0; i < s->n_nodes; i++)
            if (log < s->nodes[i].n_logs)
                split_off(s, &s->nodes[i], log);
        t->forked = true;
        s->forks++;
    }
}

static bool is_forked(const sim *s, uint32_t log) {
    return s->truths[log].forked;
}

/* ---- sealing and storing ---- */

void disk_sealed(sim *s, node *n, uint32_t log, uint64_t from, const uint8_t *p, size_t size,
                 const uint8_t seal[64]) {
    truth *t = &s->truths[log];
    if (is_forked(s, log))
        return;
    uint64_t stop = from + size, common = stop < t->seen ? stop : t->seen;
    if (from < common && memcmp(t->bytes + from, p, (size_t)(common - from))) {
        sim_fail(
            s, SAFETY, "S1",
            "node %u seals another byte for a step that is out already (%llu..%llu, seen %llu)",
            n->index, (unsigned long long)from, (unsigned long long)stop,
            (unsigned long long)t->seen);
        return;
    }
    put_bytes(&t->bytes, &t->room, from, p, size);
    while (t->n_seals && t->seals[t->n_seals - 1].n > t->seen && t->seals[t->n_seals - 1].n > from)
        t->n_seals--; /* sealed before, and lost with the process that did */
    if (t->n_seals && t->seals[t->n_seals - 1].n >= stop)
        return;
    uint32_t room = t->room_seals;
    t->seals = grow(t->seals, &t->room_seals, t->n_seals + 1, sizeof *t->seals);
    t->born = grow(t->born, &room, t->n_seals + 1, sizeof *t->born);
    t->born[t->n_seals] = s->now;
    seal_at *at = &t->seals[t->n_seals++];
    at->n = stop;
    memcpy(at->seal, seal, 64);
    t->n = stop;
}

static void mark_dirty(node *n, uint32_t log) {
    if (n->logs[log].n != n->logs[log].durable)
        return; /* it is in the list */
    n->dirty = grow(n->dirty, &n->room_dirty, n->n_dirty + 1, sizeof *n->dirty);
    n->dirty[n->n_dirty++] = log;
}

/* What is stored is what its author sealed, to the byte. */
static bool is_true(sim *s, const node *n, uint32_t log, uint64_t from, const uint8_t *p,
                    size_t size, const uint8_t seal[64]) {
    const truth *t = &s->truths[log];
    uint64_t stop = from + size;
    const seal_at *at = find_seal(t, stop);
    if (stop <= t->n && !memcmp(t->bytes + from, p, size) && at && !memcmp(at->seal, seal, 64))
        return true;
    bool known = from < t->seen;
    sim_fail(s, SAFETY, known ? "S1" : "S4",
             "node %u takes bytes %llu..%llu of node %u's log (stream %u) that it %s", n->index,
             (unsigned long long)from, (unsigned long long)stop, t->owner, t->stream,
             known ? "sealed otherwise before" : "never sealed");
    return false;
}

void disk_append(sim *s, node *n, uint32_t log, uint64_t from, const uint8_t *p, size_t size,
                 const uint8_t seal[64]) {
    slog *l = disk_log(s, n, log);
    truth *t = &s->truths[log];
    if (from != l->n || size == 0) {
        sim_fail(s, SAFETY, "S3", "node %u stores at %llu of a log of %llu", n->index,
                 (unsigned long long)from, (unsigned long long)l->n);
        return;
    }
    if (!is_forked(s, log) && !is_true(s, n, log, from, p, size, seal))
        return;
    mark_dirty(n, log);
    if (is_forked(s, log)) {
        split_off(s, n, log);
        put_bytes(&l->own->bytes, &l->own->room, from, p, size);
        memcpy(l->own->seal, seal, 64);
    }
    l->n = from + size;
    if (l->n > t->seen)
        t->seen = l->n;
    if (s->on_accept && t->stream == PD_STREAM_GRADIENTS)
        s->on_accept(s, n, t, from, l->n);
}

void disk_commit(sim *s, node *n) {
    n->incarnation = n->next_incarnation;
    for (uint32_t i = 0; i < n->n_dirty; i++) {
        slog *l = &n->logs[n->dirty[i]];
        truth *t = &s->truths[n->dirty[i]];
        l->durable = l->n;
        if (l->own)
            memcpy(l->own->durable_seal, l->own->seal, 64);
        if (!n->forgets && !n->gone && t->kept < l->n)
            t->kept = l->n;
    }
    n->n_dirty = 0;
}

void disk_lose(sim *s, node *n) {
    (void)s;
    for (uint32_t i = 0; i < n->n_dirty; i++) {
        slog *l = &n->logs[n->dirty[i]];
        l->n = l->durable;
        if (l->own)
            memcpy(l->own->seal, l->own->durable_seal, 64);
    }
    n->n_dirty = 0;
    n->next_incarnation = n->incarnation;
}

/* ---- logs that begin late ---- */

/* The mark is where the author was, and sealed. */
static bool is_true_mark(sim *s, const node *n, uint32_t log, const pd_ckpt_log *at) {
    const truth *t = &s->truths[log];
    const seal_at *seal = find_seal(t, at->chain.n);
    pd_chain c;
    pd_chain_init(&c, s->run, &t->author, t->stream);
    if (at->chain.n <= t->n && seal) {
        pd_chain_add(&c, t->bytes, (size_t)at->chain.n);
        if (!memcmp(c.c, at->chain.c, 32) && !memcmp(seal->seal, at->seal, 64) &&
            !memcmp(c.tail, at->chain.tail, (size_t)(c.n % PD_CHUNK_BYTES)))
            return true;
    }
    sim_fail(s, SAFETY, "S4", "node %u begins a log of node %u at a mark that it never sealed",
             n->index, t->owner);
    return false;
}

void disk_begin(sim *s, node *n, const pd_ckpt_log *at) {
    uint32_t log = log_number(s, &at->author, PD_STREAM_GRADIENTS);
    slog *l = disk_log(s, n, log);
    uint64_t base = pd_ckpt_base(at->chain.n);
    l->begun = calloc(1, sizeof *l->begun);
    if (!l->begun)
        abort();
    l->begun->folded = at->chain.n;
    if (l->n >= at->chain.n || (!is_forked(s, log) && !is_true_mark(s, n, log, at)))
        return;
    mark_dirty(n, log);
    if (is_forked(s, log)) {
        uint8_t *none = calloc(1, (size_t)base + 1);
        if (!none)
            abort();
        split_off(s, n, log);
        put_bytes(&l->own->bytes, &l->own->room, 0, none, (size_t)base);
        put_bytes(&l->own->bytes, &l->own->room, base, at->chain.tail,
                  (size_t)(at->chain.n - base));
        memcpy(l->own->seal, at->seal, 64);
        free(none);
    }
    l->begun->base = base;
    memcpy(l->begun->mark, at->chain.c, 32);
    l->n = at->chain.n;
    if (l->n > s->truths[log].seen)
        s->truths[log].seen = l->n;
}

bool disk_is_whole(const sim *s, const node *n) {
    bool whole = true;
    for (uint32_t log = 0; n->begun && log < n->n_logs && log < s->n_authors * PD_STREAMS; log++)
        whole &= disk_base(&n->logs[log]) == 0;
    return whole;
}

void disk_prefix(sim *s, node *n, const pd_action *a) {
    uint32_t log = log_number(s, &a->author, PD_STREAM_GRADIENTS);
    if (log == NOBODY || a->at + a->n > disk_base(disk_log(s, n, log))) {
        sim_fail(s, SAFETY, "S3", "node %u stores before a base that it has not", n->index);
        return;
    }
    slog *l = disk_log(s, n, log);
    const truth *t = &s->truths[log];
    if (a->n) {
        l->begun->wrong &= a->at > 0;
        l->begun->wrong |= !l->own && memcmp(t->bytes + a->at, a->p, a->n);
        if (l->own)
            put_bytes(&l->own->bytes, &l->own->room, a->at, a->p, a->n);
    } else if (a->own) {
        if (l->begun->wrong && !is_forked(s, log))
            sim_fail(s, SAFETY, "S4", "node %u takes bytes before a base that node %u never sealed",
                     n->index, t->owner);
        sim_say(s, "n%u holds the whole of n%u's incarnation %u", n->index, t->owner,
                t->author.inc);
        l->begun->base = 0;
    }
}

/* ---- backups, lies, rot ---- */

void disk_snapshot(sim *s, node *n) {
    uint32_t known = 0;
    for (uint32_t i = 0; i < n->n_logs; i++)
        known += n->logs[i].durable > 0;
    if (!n->core || (n->index == 0 && known <= PD_STREAMS))
        return; /* a founder that forgets everyone cannot be told */
    (void)s;
    n->shadow_taken = true;
    n->shadow_incarnation = n->incarnation;
    for (uint32_t i = 0; i < n->n_logs; i++) {
        slog *l = &n->logs[i];
        l->shadow = l->durable;
        if (l->own)
            memcpy(l->own->shadow_seal, l->own->durable_seal, 64);
    }
}

void disk_restore(sim *s, node *n) {
    for (uint32_t i = 0; i < n->n_logs; i++) {
        slog *l = &n->logs[i];
        l->n = l->durable = l->shadow;
        if (l->own) {
            memcpy(l->own->seal, l->own->shadow_seal, 64);
            memcpy(l->own->durable_seal, l->own->shadow_seal, 64);
        }
    }
    n->incarnation = n->next_incarnation = n->shadow_incarnation;
    disk_forget(s);
}

void disk_forget(sim *s) {
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++) {
        truth *t = &s->truths[log];
        uint64_t most = 0;
        for (uint32_t i = 0; i < s->n_nodes; i++) {
            uint64_t n = held(&s->nodes[i], log)->n;
            most = n > most && !s->nodes[i].evil_now && !s->nodes[i].gone ? n : most;
        }
        if (s->nodes[t->owner].forgets && t->seen > most)
            t->seen = most;
    }
}

/* A damaged row costs the whole log; it is asked for again.  Not an own log, not a control log (who
 * is a member hangs on it), and not the last whole copy. */
void disk_rot(sim *s, node *n, pd_rng *r) {
    for (uint32_t tries = 0; tries < 8; tries++) {
        uint32_t log = (uint32_t)draw(r, 0, s->n_authors * PD_STREAMS - 1), copies = 0;
        const truth *t = &s->truths[log];
        for (uint32_t i = 0; i < s->n_members; i++)
            copies += i != n->index && !s->nodes[i].forgets && !s->nodes[i].gone &&
                      held(&s->nodes[i], log)->durable >= held(n, log)->n &&
                      !disk_base(held(&s->nodes[i], log));
        if (held(n, log)->n == 0 || t->stream != PD_STREAM_GRADIENTS || t->owner == n->index ||
            t->forked || copies == 0)
            continue;
        n->logs[log] = (slog){0};
        return;
    }
}

void disk_copy(sim *s, node *to, const node *from) {
    for (uint32_t log = 0; log < from->n_logs; log++) {
        const slog *o = &from->logs[log];
        slog *l = disk_log(s, to, log);
        *l = (slog){.n = o->durable, .durable = o->durable};
        if (o->begun) {
            l->begun = malloc(sizeof *l->begun);
            if (!l->begun)
                abort();
            *l->begun = *o->begun;
        }
        if (!o->own)
            continue;
        l->own = calloc(1, sizeof *l->own);
        if (!l->own)
            abort();
        if (o->durable)
            put_bytes(&l->own->bytes, &l->own->room, 0, o->own->bytes, (size_t)o->durable);
        memcpy(l->own->seal, o->own->durable_seal, 64);
        memcpy(l->own->durable_seal, o->own->durable_seal, 64);
    }
    to->incarnation = to->next_incarnation = from->incarnation;
}

void disk_lose_last_seals(sim *s) {
    for (uint32_t log = 0; log < s->n_authors * PD_STREAMS; log++) {
        truth *t = &s->truths[log];
        if (t->stream != PD_STREAM_GRADIENTS || t->n_seals < 2 || t->forked)
            continue;
        t->n = t->seen = t->seals[--t->n_seals - 1].n;
        for (uint32_t i = 0; i < s->n_nodes; i++) {
            slog *l = disk_log(s, &s->nodes[i], log);
            l->n = l->n > t->n ? t->n : l->n;
            l->durable = l->n;
        }
    }
}

void disk_free(node *n) {
    for (uint32_t i = 0; i < n->n_logs; i++) {
        free(n->logs[i].begun);
        if (n->logs[i].own) {
            free(n->logs[i].own->bytes);
            free(n->logs[i].own);
        }
    }
    free(n->logs);
    free(n->dirty);
}
