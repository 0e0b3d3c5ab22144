/* table.c - the core's tables: sized by the configuration, laid into one arena, looked up by key.
 *
 *   bytes(M) with A = M + M / 4 + 64 authors, 2 A logs and 20 links:
 *     members  M * (sizeof(pd_member) + 4 of `slot`)
 *     authors  A * (sizeof(pd_author_state) + 2 of `order`)
 *     links    20 * A * (2 * (24 + 4) of logs + 6 of aliases + 0.75 of sets)
 *     a welcome, unsealed bytes, and what does not grow with M
 *
 * A log's tail (the up to 1023 bytes behind its last whole chunk) is not kept: the ledger holds it,
 * and reading it costs a copy.  That is 2 KB less for each author.
 */
#include "state.h"

#include "peerd/digest.h"

#include <assert.h>

enum { ALIGN = 64, SLOTS_MIN = 64, WELCOME_BYTES = 1 << 17, WELCOME_MEMBER = 320 };

uint32_t pd_authors_of(uint32_t members_max) {
    return members_max + members_max / 4 + 64;
}

static uint32_t slots_of(uint32_t members_max) {
    uint32_t n = SLOTS_MIN;
    while (n < 2 * members_max)
        n *= 2;
    return n;
}

/* The next `size` bytes of the arena; NULL while they are only counted. */
static void *lay(pd_core *c, size_t *at, size_t size) {
    void *p = c ? (uint8_t *)c + *at : NULL;
    *at += (size + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static void lay_link(pd_core *c, pd_link *l, size_t *at, uint32_t authors) {
    pd_link none;
    uint32_t logs = authors * PD_STREAMS;
    size_t words = (logs + 63) / 64 * sizeof(uint64_t);
    l = l ? l : &none;
    l->in = lay(c, at, authors * sizeof *l->in);
    l->out = lay(c, at, authors * sizeof *l->out);
    l->by_out = lay(c, at, authors * sizeof *l->by_out);
    l->rx_end = lay(c, at, logs * sizeof *l->rx_end);
    l->log = lay(c, at, logs * sizeof *l->log);
    l->due = lay(c, at, words);
    l->tell = lay(c, at, words);
    l->ask = lay(c, at, words);
}

size_t pd_table_lay(const pd_core_conf *conf, pd_core *c) {
    uint32_t members = conf->members_max ? conf->members_max : PD_MEMBERS_MAX;
    uint32_t authors = pd_authors_of(members), slots = slots_of(members);
    size_t stage = conf->stage_bytes ? conf->stage_bytes : PD_STAGE_BYTES;
    size_t welcome = WELCOME_BYTES + (size_t)members * WELCOME_MEMBER, at = 0;
    pd_core counted;
    pd_core *t = c ? c : &counted;
    lay(c, &at, sizeof *c);
    t->members_max = members;
    t->authors_max = authors;
    t->n_slots = slots;
    t->welcome_room = welcome;
    t->member = lay(c, &at, members * sizeof *t->member);
    t->slot = lay(c, &at, slots * sizeof *t->slot);
    t->author = lay(c, &at, authors * sizeof *t->author);
    t->order = lay(c, &at, authors * sizeof *t->order);
    t->lack = lay(c, &at, (authors * PD_STREAMS + 63) / 64 * sizeof *t->lack);
    size_t cleared = at;
    for (unsigned i = 0; i < PD_LINKS_MAX; i++)
        lay_link(c, c ? &c->link[i] : NULL, &at, authors);
    t->welcome = lay(c, &at, welcome);
    t->stage_arena = lay(c, &at, PD_STAGES * stage);
    if (c) {
        size_t head = (sizeof *c + ALIGN - 1) / ALIGN * ALIGN;
        memset((uint8_t *)c + head, 0, cleared - head);
    }
    return at;
}

void pd_table_clear_link(pd_core *c, pd_link *l) {
    uint32_t authors = c->authors_max, logs = authors * PD_STREAMS;
    size_t words = (logs + 63) / 64 * sizeof(uint64_t);
    if (!l->log)
        return;
    memset(l->in, 0xff, authors * sizeof *l->in);
    memset(l->out, 0xff, authors * sizeof *l->out);
    memset(l->by_out, 0xff, authors * sizeof *l->by_out);
    memset(l->rx_end, 0, logs * sizeof *l->rx_end);
    if (!PD_BUG(PD_BUG_KEEP_SENT))
        memset(l->log, 0, logs * sizeof *l->log);
    memset(l->due, 0, words);
    memset(l->tell, 0, words);
    memset(l->ask, 0, words);
}

uint32_t pd_set_next(const uint64_t *set, uint32_t from, uint32_t end) {
    while (from < end) {
        uint64_t word = set[from / 64] >> from % 64;
        if (word) {
            from += (uint32_t)__builtin_ctzll(word);
            return from < end ? from : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

/* ---- looked up by key ---- */

/* The hash is seeded: nobody can choose keys that fall together. */
uint16_t *pd_table_slot(const pd_core *c, const uint8_t key[32]) {
    for (uint64_t at = pd_xxh64(key, 32, c->nonce);; at++) {
        uint16_t *slot = &c->slot[at & (c->n_slots - 1)];
        if (*slot == 0 || !memcmp(c->member[*slot - 1].key, key, 32))
            return slot;
    }
}

void pd_table_order(pd_core *c, uint16_t author) {
    uint32_t lo = 0, hi = c->n_authors - 1; /* the others */
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (pd_author_order(&c->author[c->order[mid]].id, &c->author[author].id) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    memmove(&c->order[lo + 1], &c->order[lo], (c->n_authors - 1 - lo) * sizeof *c->order);
    c->order[lo] = author;
}

/* ---- chains ---- */

bool pd_chain_of(pd_core *c, uint32_t index, pd_chain *out) {
    const pd_log *log = pd_log_at_index(c, index);
    const pd_author *id = &c->author[index / PD_STREAMS].id;
    size_t tail = (size_t)(log->chain.n % PD_CHUNK_BYTES);
    if (log->held != log->chain.n)
        return false;
    memcpy(out->c, log->chain.c, sizeof out->c);
    out->n = log->chain.n;
    size_t got = tail ? c->store.read(c->store.ctx, id, (uint8_t)(index % PD_STREAMS),
                                      log->chain.n - tail, out->tail, tail)
                      : 0;
    assert(got == tail); /* the ledger holds what it said it holds */
    return true;
}
