/* tokenizer_merge.c - from symbols to tokens: the cheapest pair of neighbours is joined until no
 * pair is a token.
 *
 * All kinds are one loop; they differ in what the symbols are (bytes, or characters), in what a
 * pair makes (a merge of the file, or the token of the joined text) and in the order (the merge's
 * rank, or the token's score, highest first); ties go to the left.  Pairs wait in a binary heap as
 * rank << 32 | left.  A pair is not taken out when one of its halves is joined elsewhere: on its
 * turn it is looked up again and passed over if it is not what it was.  Each join removes a symbol
 * and adds at most two pairs, so the heap never holds more than 2n, and n symbols take n log n.
 */
#include "peerd/bytes.h"
#include "tok.h"
#include "utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* at, len: bytes of the text; len 0 once it was joined to the symbol before it.  prev, next:
 * neighbours. */
typedef struct tok_symbol {
    uint32_t at, len, id, prev, next;
} symbol;

/* ---- merges of a file ---- */

static size_t pair_slot(const pd_tokenizer *t, uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio */
    return (size_t)(h ^ h >> 29) & t->merge_mask;
}

bool tok_pair(const pd_tokenizer *t, uint32_t left, uint32_t right, uint32_t *rank,
              uint32_t *made) {
    if (left == TOK_NONE || right == TOK_NONE)
        return false;
    for (size_t i = pair_slot(t, left, right);; i = (i + 1) & t->merge_mask) {
        const tok_merge *m = &t->merges[i];
        if (m->left == TOK_NONE)
            return false;
        if (m->left == left && m->right == right) {
            *rank = m->rank;
            *made = m->made;
            return true;
        }
    }
}

static pd_err add_merge(pd_tokenizer *t, const tok_pair_text *m, uint32_t rank, char *joined) {
    char shown[PD_SHOW_ROOM], too[PD_SHOW_ROOM];
    if (m->left.n)
        memcpy(joined, m->left.p, m->left.n);
    if (m->right.n)
        memcpy(joined + m->left.n, m->right.p, m->right.n);
    uint32_t left = tok_find(t, m->left.p, m->left.n), right = tok_find(t, m->right.p, m->right.n);
    uint32_t made = tok_find(t, joined, m->left.n + m->right.n);
    if (left == TOK_NONE || right == TOK_NONE || made == TOK_NONE)
        return pd_fail(
            PD_EFORMAT, "merge %u of the tokenizer (%s %s) names a token that is not in its list",
            rank, pd_show(m->left.p, m->left.n, shown), pd_show(m->right.p, m->right.n, too));
    size_t i = pair_slot(t, left, right);
    while (t->merges[i].left != TOK_NONE &&
           (t->merges[i].left != left || t->merges[i].right != right))
        i = (i + 1) & t->merge_mask;
    /* Of two equal merges the first counts, or (as that library has it) tokenizer.json's last. */
    if (t->json || t->merges[i].left == TOK_NONE)
        t->merges[i] = (tok_merge){left, right, rank, made};
    return PD_OK;
}

pd_err tok_merges_open(pd_tokenizer *t, const tok_pair_text *merges, size_t n) {
    size_t room = 64, longest = 0;
    while (room < 2 * n)
        room *= 2;
    for (size_t i = 0; i < n; i++)
        if (merges[i].left.n + merges[i].right.n > longest)
            longest = merges[i].left.n + merges[i].right.n;
    char *joined = malloc(longest + 1);
    t->merges = malloc(room * sizeof *t->merges);
    pd_err e = joined && t->merges
                   ? PD_OK
                   : pd_fail(PD_ENOMEM, "no memory for the tokenizer's %zu merges", n);
    if (!e) {
        t->merge_mask = room - 1;
        memset(t->merges, 0xff, room * sizeof *t->merges);
    }
    for (size_t i = 0; !e && i < n; i++)
        e = add_merge(t, &merges[i], (uint32_t)i, joined);
    free(joined);
    return e;
}

/* ---- the heap ---- */

static void heap_push(tok_work *w, size_t *n, uint64_t v) {
    size_t i = (*n)++;
    for (; i && v < w->heap[(i - 1) / 2]; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = v;
}

static uint64_t heap_pop(tok_work *w, size_t *n) {
    uint64_t least = w->heap[0], v = w->heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= *n)
            break;
        if (child + 1 < *n && w->heap[child + 1] < w->heap[child])
            child++;
        if (v <= w->heap[child])
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = v;
    return least;
}

/* ---- the loop ---- */

static bool pair_of(const pd_tokenizer *t, const char *p, const symbol *l, const symbol *r,
                    uint32_t *rank, uint32_t *made) {
    if (t->merges)
        return tok_pair(t, l->id, r->id, rank, made);
    size_t n = (size_t)l->len + r->len;
    *made = n <= t->longest ? tok_find(t, p + l->at, n) : TOK_NONE;
    if (*made != TOK_NONE)
        *rank = t->order[*made];
    return *made != TOK_NONE;
}

static void offer(const pd_tokenizer *t, tok_work *w, size_t *n_heap, const char *p,
                  uint32_t left) {
    uint32_t rank, made;
    if (left != TOK_NONE && w->symbols[left].next != TOK_NONE &&
        pair_of(t, p, &w->symbols[left], &w->symbols[w->symbols[left].next], &rank, &made))
        heap_push(w, n_heap, (uint64_t)rank << 32 | left);
}

static pd_err make_room(tok_work *w, size_t n) {
    if (n <= w->room)
        return PD_OK;
    size_t room = n + n / 2 + 64;
    free(w->symbols);
    free(w->heap);
    w->symbols = malloc(room * sizeof *w->symbols);
    w->heap = malloc(2 * room * sizeof *w->heap);
    w->room = w->symbols && w->heap ? room : 0;
    return w->room ? PD_OK : pd_fail(PD_ENOMEM, "no memory to tokenise a text of %zu bytes", n);
}

void tok_work_free(tok_work *w) {
    free(w->symbols);
    free(w->heap);
    free(w->spelled);
    w->symbols = NULL;
    w->heap = NULL;
    w->spelled = NULL;
    w->room = 0;
}

/* tokenizer.json's rule for a character (or byte) without a token: its byte tokens if there are
 * any, else the unknown token, one for a run of them where the file says so, else nothing at all,
 * so that its neighbours meet. */
static size_t put_unknown(const pd_tokenizer *t, tok_work *w, size_t k, const char *p, size_t at,
                          size_t len) {
    bool bytes = t->kind == TOK_SPM && t->byte_id[0] != TOK_NONE;
    for (size_t i = 0; bytes && i < len; i++, k++)
        w->symbols[k] = (symbol){(uint32_t)(at + i), 1, t->byte_id[(uint8_t)p[at + i]],
                                 (uint32_t)k - 1, (uint32_t)k + 1};
    if (bytes || t->unknown == TOK_NONE)
        return k;
    if (k && t->fuses_unknown && w->symbols[k - 1].id == t->unknown) {
        w->symbols[k - 1].len += (uint32_t)len;
        return k;
    }
    w->symbols[k] =
        (symbol){(uint32_t)at, (uint32_t)len, t->unknown, (uint32_t)k - 1, (uint32_t)k + 1};
    return k + 1;
}

/* BPE starts from bytes, SPM from characters (and from single bytes where the text is not UTF-8).
 */
static size_t first_symbols(const pd_tokenizer *t, tok_work *w, const char *p, size_t n) {
    size_t k = 0, len;
    for (size_t at = 0; at < n; at += len) {
        uint8_t c = (uint8_t)p[at];
        len = t->kind == TOK_SPM ? pd_utf8_char(p + at, n - at) : 1;
        if (len == 0)
            len = 1;
        uint32_t id = t->kind == TOK_BPE ? t->byte_id[c] : tok_find(t, p + at, len);
        if (id == TOK_NONE && t->json) {
            k = put_unknown(t, w, k, p, at, len);
            continue;
        }
        w->symbols[k] = (symbol){(uint32_t)at, (uint32_t)len, id, (uint32_t)k - 1, (uint32_t)k + 1};
        k++;
    }
    if (k)
        w->symbols[k - 1].next = TOK_NONE;
    return k;
}

/* A symbol without a token, by llama.cpp's rule: SPM spells it in byte tokens; byte-level BPE has
 * no such byte and drops it. */
static pd_err put_symbol(const pd_tokenizer *t, tok_work *w, const char *p, const symbol *s) {
    if (s->id != TOK_NONE)
        return tok_append(&w->out, &s->id, 1);
    pd_err e = PD_OK;
    for (uint32_t i = 0; !e && t->kind == TOK_SPM && i < s->len; i++) {
        uint32_t id = t->byte_id[(uint8_t)p[s->at + i]];
        if (id == TOK_NONE)
            id = t->unknown;
        if (id != TOK_NONE)
            e = tok_append(&w->out, &id, 1);
    }
    return e;
}

/* The token that a whole word is, or TOK_NONE.  Never a special one: contents do not become those.
 */
static pd_err whole_word(const pd_tokenizer *t, tok_work *w, const char *p, size_t n,
                         uint32_t *id) {
    size_t k = 0;
    *id = TOK_NONE;
    if (n > t->longest)
        return PD_OK;
    if (!w->spelled && !(w->spelled = malloc(t->longest + 1)))
        return pd_fail(PD_ENOMEM, "no memory for a word");
    for (size_t i = 0; i < n && t->kind == TOK_BPE; i++) {
        uint32_t byte = t->byte_id[(uint8_t)p[i]];
        if (byte == TOK_NONE || t->text[byte].n > t->longest - k)
            return PD_OK;
        memcpy(w->spelled + k, t->text[byte].p, t->text[byte].n);
        k += t->text[byte].n;
    }
    uint32_t found = t->kind == TOK_BPE ? tok_find(t, w->spelled, k) : tok_find(t, p, n);
    if (found != TOK_NONE && t->type[found] == TOK_NORMAL)
        *id = found;
    return PD_OK;
}

pd_err tok_merge_text(const pd_tokenizer *t, tok_work *w, const char *p, size_t n) {
    assert(n < TOK_NONE);
    if (n == 0)
        return PD_OK;
    uint32_t whole = TOK_NONE;
    pd_err e = t->whole_words ? whole_word(t, w, p, n, &whole) : PD_OK;
    if (whole != TOK_NONE)
        return tok_append(&w->out, &whole, 1);
    if (!e)
        e = make_room(w, n);
    if (e)
        return e;
    size_t n_symbols = first_symbols(t, w, p, n), n_heap = 0;
    if (n_symbols == 0)
        return PD_OK;
    for (size_t i = 0; i + 1 < n_symbols; i++)
        offer(t, w, &n_heap, p, (uint32_t)i);
    while (n_heap) {
        uint64_t top = heap_pop(w, &n_heap);
        symbol *left = &w->symbols[(uint32_t)top];
        uint32_t rank, made;
        if (left->len == 0 || left->next == TOK_NONE)
            continue;
        symbol *right = &w->symbols[left->next];
        if (!pair_of(t, p, left, right, &rank, &made) || rank != top >> 32)
            continue;
        left->id = made;
        left->len += right->len;
        left->next = right->next;
        right->len = 0;
        if (left->next != TOK_NONE)
            w->symbols[left->next].prev = (uint32_t)top;
        offer(t, w, &n_heap, p, left->prev);
        offer(t, w, &n_heap, p, (uint32_t)top);
        assert(n_heap <= 2 * w->room);
    }
    for (uint32_t i = 0; !e && i != TOK_NONE; i = w->symbols[i].next)
        e = put_symbol(t, w, p, &w->symbols[i]);
    return e;
}
