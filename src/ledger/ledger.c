/* ledger.c - byte strings in memory behind one lock; see ledger.h. */
#include "peerd/ledger.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct stream {
    uint8_t *bytes;
    uint64_t n, room; /* n counts from the log's first byte, room what `bytes` can hold */
    uint8_t seal[64];
} stream;

typedef struct log {
    pd_author author;
    uint64_t void_at;
    stream s[PD_STREAMS];
    uint64_t base; /* of the gradients: bytes[0] of theirs is byte `base`; control logs are whole */
    uint8_t mark[32];
    uint8_t *prefix; /* what has come of the bytes before the base */
    uint64_t n_prefix, prefix_room;
} log;

struct pd_ledger {
    pthread_mutex_t lock;
    log *logs;
    uint32_t n, room;
    uint32_t *slots; /* open addressing: index + 1, 0 is free; a power of two, at most half full */
    uint32_t n_slots;
    uint64_t records;
};

pd_err pd_ledger_open(pd_ledger **out) {
    pd_ledger *l = calloc(1, sizeof *l);
    if (!l)
        return pd_fail(PD_ENOMEM, "no memory for the ledger");
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return PD_OK;
}

void pd_ledger_close(pd_ledger *l) {
    if (!l)
        return;
    for (uint32_t i = 0; i < l->n; i++) {
        for (int s = 0; s < PD_STREAMS; s++)
            free(l->logs[i].s[s].bytes);
        free(l->logs[i].prefix);
    }
    free(l->logs);
    free(l->slots);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- authors ---- */

/* The slot that holds an author, or the free one where it belongs.  Keys are spread evenly: they
 * are Ed25519 points. */
static uint32_t *slot_of(const pd_ledger *l, const pd_author *a) {
    uint64_t at = (pd_load64(a->key) + a->inc) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    for (;; at++) {
        uint32_t *slot = &l->slots[at & (l->n_slots - 1)];
        if (*slot == 0)
            return slot;
        const pd_author *there = &l->logs[*slot - 1].author;
        if (there->inc == a->inc && memcmp(there->key, a->key, 32) == 0)
            return slot;
    }
}

static bool grow_slots(pd_ledger *l) {
    if (l->slots && 2 * (l->n + 1) <= l->n_slots)
        return true;
    uint32_t bigger = l->n_slots ? 2 * l->n_slots : 32;
    uint32_t *slots = calloc(bigger, sizeof *slots);
    if (!slots)
        return false;
    free(l->slots);
    l->slots = slots;
    l->n_slots = bigger;
    for (uint32_t i = 0; i < l->n; i++)
        *slot_of(l, &l->logs[i].author) = i + 1;
    return true;
}

static bool grow_logs(pd_ledger *l) {
    if (l->n < l->room)
        return true;
    uint32_t room = l->room ? 2 * l->room : 16;
    log *logs = realloc(l->logs, room * sizeof *logs);
    if (!logs)
        return false;
    l->logs = logs;
    l->room = room;
    return true;
}

pd_err pd_ledger_author(pd_ledger *l, const pd_author *a, uint32_t *index) {
    pd_err e = PD_OK;
    pthread_mutex_lock(&l->lock);
    uint32_t *slot = l->slots ? slot_of(l, a) : NULL;
    if (slot && *slot) {
        *index = *slot - 1;
    } else if (!grow_slots(l) || !grow_logs(l)) {
        e = pd_fail(PD_ENOMEM, "no memory for author %u of the ledger", l->n);
    } else {
        l->logs[l->n] = (log){.author = *a, .void_at = PD_VOID_NEVER};
        *index = l->n++;
        *slot_of(l, a) = l->n;
    }
    pthread_mutex_unlock(&l->lock);
    return e;
}

bool pd_ledger_find(pd_ledger *l, const pd_author *a, uint32_t *index) {
    pthread_mutex_lock(&l->lock);
    uint32_t *slot = l->slots ? slot_of(l, a) : NULL;
    bool there = slot && *slot;
    if (there)
        *index = *slot - 1;
    pthread_mutex_unlock(&l->lock);
    return there;
}

uint32_t pd_ledger_authors(pd_ledger *l) {
    pthread_mutex_lock(&l->lock);
    uint32_t n = l->n;
    pthread_mutex_unlock(&l->lock);
    return n;
}

bool pd_ledger_info(pd_ledger *l, uint32_t index, pd_log_info *out) {
    pthread_mutex_lock(&l->lock);
    bool there = index < l->n;
    if (there) {
        const log *from = &l->logs[index];
        out->author = from->author;
        out->void_at = from->void_at;
        out->base = from->base;
        memcpy(out->mark, from->mark, sizeof out->mark);
        for (int s = 0; s < PD_STREAMS; s++) {
            out->n[s] = from->s[s].n;
            memcpy(out->seal[s], from->s[s].seal, 64);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return there;
}

/* ---- what counts ---- */

static uint64_t counted(const log *l) {
    uint64_t n = l->s[PD_STREAM_GRADIENTS].n;
    return n < l->void_at ? n : l->void_at;
}

void pd_ledger_void(pd_ledger *l, uint32_t index, uint64_t void_at) {
    pthread_mutex_lock(&l->lock);
    assert(index < l->n);
    l->records -= counted(&l->logs[index]);
    l->logs[index].void_at = void_at;
    l->records += counted(&l->logs[index]);
    pthread_mutex_unlock(&l->lock);
}

/* ---- bytes ---- */

static bool grow(uint8_t **bytes, uint64_t *room, uint64_t n) {
    if (n <= *room)
        return true;
    uint64_t more = *room ? *room : PD_CHUNK_BYTES;
    while (more < n)
        more *= 2;
    uint8_t *p = realloc(*bytes, more);
    if (!p)
        return false;
    *bytes = p;
    *room = more;
    return true;
}

/* The first byte of a stream that is held. */
static uint64_t base_of(const log *g, uint8_t stream_id) {
    return stream_id == PD_STREAM_GRADIENTS ? g->base : 0;
}

pd_err pd_ledger_append(pd_ledger *l, uint32_t index, uint8_t stream_id, uint64_t from,
                        const uint8_t *bytes, size_t n, const uint8_t seal[64]) {
    assert(stream_id < PD_STREAMS && from + n >= from);
    pd_err e = PD_OK;
    pthread_mutex_lock(&l->lock);
    assert(index < l->n);
    stream *s = &l->logs[index].s[stream_id];
    uint64_t held = s->n, base = base_of(&l->logs[index], stream_id);
    if (from > held)
        e = pd_fail(PD_EMISMATCH, "bytes from %llu do not follow the %llu held",
                    (unsigned long long)from, (unsigned long long)held);
    else if (from + n > held && !grow(&s->bytes, &s->room, from + n - base))
        e = pd_fail(PD_ENOMEM, "no memory for %llu bytes of a log", (unsigned long long)(from + n));
    else if (from + n > held) { /* what is held already keeps its seal, which covers more */
        uint64_t skip = held - from;
        l->records -= counted(&l->logs[index]);
        memcpy(s->bytes + (held - base), bytes + skip, n - skip);
        memcpy(s->seal, seal, 64);
        s->n = from + n;
        l->records += counted(&l->logs[index]);
    }
    pthread_mutex_unlock(&l->lock);
    return e;
}

size_t pd_ledger_read(pd_ledger *l, uint32_t index, uint8_t stream_id, uint64_t from, uint8_t *out,
                      size_t room) {
    assert(stream_id < PD_STREAMS);
    size_t n = 0;
    pthread_mutex_lock(&l->lock);
    if (index < l->n) {
        const stream *s = &l->logs[index].s[stream_id];
        uint64_t base = base_of(&l->logs[index], stream_id);
        if (from >= base && from < s->n)
            n = s->n - from < room ? (size_t)(s->n - from) : room;
        if (n)
            memcpy(out, s->bytes + (from - base), n);
    }
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* ---- logs that begin at a base ---- */

pd_err pd_ledger_begin_at(pd_ledger *l, uint32_t index, uint64_t base, const uint8_t mark[32],
                          const uint8_t *bytes, size_t n, const uint8_t seal[64]) {
    assert(base % PD_CHUNK_BYTES == 0);
    pd_err e = PD_OK;
    pthread_mutex_lock(&l->lock);
    assert(index < l->n);
    log *g = &l->logs[index];
    stream *s = &g->s[PD_STREAM_GRADIENTS];
    if (s->n >= base + n)
        e = pd_fail(PD_EMISMATCH, "%llu bytes of a log are held already", (unsigned long long)s->n);
    else if (!grow(&s->bytes, &s->room, n ? n : 1))
        e = pd_fail(PD_ENOMEM, "no memory for %zu bytes of a log", n);
    if (!e) {
        l->records -= counted(g);
        if (n)
            memcpy(s->bytes, bytes, n);
        memcpy(s->seal, seal, 64);
        memcpy(g->mark, mark, 32);
        s->n = base + n;
        g->base = base;
        g->n_prefix = 0;
        l->records += counted(g);
    }
    pthread_mutex_unlock(&l->lock);
    return e;
}

pd_err pd_ledger_prefix_add(pd_ledger *l, uint32_t index, uint64_t from, const uint8_t *bytes,
                            size_t n) {
    pd_err e = PD_OK;
    pthread_mutex_lock(&l->lock);
    assert(index < l->n);
    log *g = &l->logs[index];
    if (from > g->n_prefix || n > g->base || from > g->base - n)
        e = pd_fail(PD_EMISMATCH, "%zu bytes at %llu are no part of the %llu before a base", n,
                    (unsigned long long)from, (unsigned long long)g->base);
    else if (!grow(&g->prefix, &g->prefix_room, from + n))
        e = pd_fail(PD_ENOMEM, "no memory for %llu bytes of a log", (unsigned long long)(from + n));
    else
        memcpy(g->prefix + from, bytes, n);
    if (!e)
        g->n_prefix = from + n;
    pthread_mutex_unlock(&l->lock);
    return e;
}

static void drop_prefix(log *g) {
    free(g->prefix);
    g->prefix = NULL;
    g->n_prefix = g->prefix_room = 0;
}

/* What is held goes behind the prefix, which becomes the log. */
static pd_err make_whole(log *g) {
    stream *s = &g->s[PD_STREAM_GRADIENTS];
    if (g->n_prefix != g->base)
        return pd_fail(PD_EMISMATCH, "%llu of the %llu bytes before a base are here",
                       (unsigned long long)g->n_prefix, (unsigned long long)g->base);
    if (!grow(&g->prefix, &g->prefix_room, s->n))
        return pd_fail(PD_ENOMEM, "no memory for %llu bytes of a log", (unsigned long long)s->n);
    memcpy(g->prefix + g->base, s->bytes, (size_t)(s->n - g->base));
    free(s->bytes);
    s->bytes = g->prefix;
    s->room = g->prefix_room;
    g->prefix = NULL;
    g->base = g->n_prefix = g->prefix_room = 0;
    return PD_OK;
}

pd_err pd_ledger_prefix_end(pd_ledger *l, uint32_t index, bool right) {
    pd_err e = PD_OK;
    pthread_mutex_lock(&l->lock);
    assert(index < l->n);
    log *g = &l->logs[index];
    if (right && g->base)
        e = make_whole(g);
    if (!right)
        drop_prefix(g);
    pthread_mutex_unlock(&l->lock);
    return e;
}

uint64_t pd_ledger_lacking(pd_ledger *l) {
    uint64_t sum = 0;
    pthread_mutex_lock(&l->lock);
    for (uint32_t i = 0; i < l->n; i++)
        sum += l->logs[i].base - l->logs[i].n_prefix;
    pthread_mutex_unlock(&l->lock);
    return sum;
}

uint64_t pd_ledger_records(pd_ledger *l) {
    pthread_mutex_lock(&l->lock);
    uint64_t records = l->records;
    pthread_mutex_unlock(&l->lock);
    return records;
}
