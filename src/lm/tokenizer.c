/* tokenizer.c - the vocabulary and its rules, from whatever file they came: checked, copied,
 * digested.
 *
 * Lists are copied and checked at open, so that encoding (tokenizer_encode.c) meets no id that is
 * not there and the file can be closed.
 */
#include "peerd/tokenizer.h"
#include "peerd/bytes.h"
#include "peerd/identity.h"
#include "tok.h"
#include "utf8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- vocabulary ---- */

/* FNV-1a, folded: tokens are a few bytes long. */
static size_t text_slot(const pd_tokenizer *t, const char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)p[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32) & t->slot_mask;
}

/* The slot where a text stands or would stand. */
static size_t find_slot(const pd_tokenizer *t, const char *p, size_t n) {
    size_t i = text_slot(t, p, n);
    while (t->slots[i] != TOK_NONE) {
        const pd_str *s = &t->text[t->slots[i]];
        if (s->n == n && memcmp(s->p, p, n) == 0)
            break;
        i = (i + 1) & t->slot_mask;
    }
    return i;
}

uint32_t tok_find(const pd_tokenizer *t, const char *p, size_t n) {
    return n ? t->slots[find_slot(t, p, n)] : TOK_NONE;
}

/* GPT-2's printable spelling of a byte: itself where it is a visible character, else U+0100 and up,
 * in order: 0..32 are not visible, 127..160, and 173. */
static uint32_t spelling_of(unsigned byte) {
    if (byte <= 32)
        return 256 + byte;
    if (byte >= 127 && byte <= 160)
        return 256 + 33 + (byte - 127);
    return byte == 173 ? 256 + 33 + 34 : byte;
}

static size_t put_spelling(uint32_t c, char out[2]) { /* c < 0x180: one or two bytes of UTF-8 */
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

/* A BPE token back to bytes; one that is not spelled in GPT-2's alphabet is taken as it stands. */
static size_t unspell(pd_str s, const int16_t byte_of[0x180], char *out) {
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        uint8_t c = (uint8_t)s.p[i];
        size_t len = c < 0x80 ? 1 : 2;
        uint32_t code = len == 1      ? c
                        : i + 1 < s.n ? (uint32_t)(c & 0x1f) << 6 | (s.p[i + 1] & 0x3f)
                                      : 0x180;
        if ((len == 2 && pd_utf8_char(s.p + i, s.n - i) != 2) || code >= 0x180 ||
            byte_of[code] < 0) {
            memcpy(out, s.p, s.n);
            return s.n;
        }
        out[n++] = (char)byte_of[code];
        i += len;
    }
    return n;
}

/* "<0x1F>": its byte, or -1. */
static int byte_token(pd_str s) {
    uint8_t b;
    char hex[3] = {0};
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>')
        return -1;
    memcpy(hex, s.p + 3, 2);
    return pd_unhex(hex, &b, 1) ? b : -1;
}

static size_t unescape(pd_str s, char *out) { /* U+2581 back to a space */
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        bool space = s.n - i >= 3 && memcmp(s.p + i, "\xe2\x96\x81", 3) == 0;
        out[n++] = space ? ' ' : s.p[i];
        i += space ? 3 : 1;
    }
    return n;
}

/* The bytes of each token as they appear in text; never longer than the token's spelling. */
static void fill_pieces(pd_tokenizer *t) {
    int16_t byte_of[0x180];
    char *out = t->piece_bytes;
    memset(byte_of, 0xff, sizeof byte_of);
    for (unsigned b = 0; b < 256; b++)
        byte_of[spelling_of(b)] = (int16_t)b;
    for (uint32_t i = 0; i < t->n; i++) {
        pd_str s = t->text[i];
        size_t n;
        int byte = t->type[i] == TOK_BYTE ? byte_token(s) : -1;
        if (byte >= 0) {
            out[0] = (char)byte;
            n = 1;
        } else if (t->type[i] == TOK_CONTROL || t->type[i] == TOK_USER ||
                   t->type[i] == TOK_UNKNOWN) {
            memcpy(out, s.p, s.n);
            n = s.n;
        } else {
            n = t->kind == TOK_BPE ? unspell(s, byte_of, out) : unescape(s, out);
        }
        t->piece[i] = (pd_str){out, n};
        out += n;
    }
}

/* Token of each byte: BPE's alphabet, SPM's fallback. */
static void fill_bytes(pd_tokenizer *t) {
    static const char digits[] = "0123456789ABCDEF";
    for (unsigned b = 0; b < 256; b++) {
        char spelled[7] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0};
        if (t->kind == TOK_BPE)
            t->byte_id[b] = tok_find(t, spelled, put_spelling(spelling_of(b), spelled));
        else
            t->byte_id[b] = tok_find(t, spelled, 6);
    }
}

/* Longest first, as llama.cpp looks for them; for tokenizer.json's rule, the leftmost and of these
 * the longest, grouped by the first byte. */
static int longest_first(const void *a, const void *b, void *ctx) {
    const pd_tokenizer *t = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    size_t nx = t->text[x].n, ny = t->text[y].n;
    uint8_t cx = (uint8_t)t->text[x].p[0], cy = (uint8_t)t->text[y].p[0];
    if (t->json && cx != cy)
        return cx < cy ? -1 : 1;
    return nx != ny ? (nx < ny) - (nx > ny) : (x > y) - (x < y);
}

static void fill_specials(pd_tokenizer *t) {
    for (uint32_t i = 0; i < t->n; i++)
        if ((t->type[i] == TOK_CONTROL || t->type[i] == TOK_USER || t->type[i] == TOK_UNKNOWN) &&
            t->text[i].n)
            t->specials[t->n_specials++] = i;
    qsort_r(t->specials, t->n_specials, sizeof *t->specials, longest_first, t);
    for (size_t i = 0; i < t->n_specials; i++)
        t->special_at[(uint8_t)t->text[t->specials[i]].p[0] + 1]++;
    for (unsigned b = 0; b < 256; b++)
        t->special_at[b + 1] += t->special_at[b];
}

static pd_err copy_tokens(pd_tokenizer *t, const tok_lists *l) {
    size_t bytes = 0, slots = 64;
    for (size_t i = 0; i < l->n; i++)
        bytes += l->tokens[i].n;
    while (slots < 2 * l->n)
        slots *= 2;
    t->n = (uint32_t)l->n;
    t->text = calloc(l->n, sizeof *t->text);
    t->piece = calloc(l->n, sizeof *t->piece);
    t->type = calloc(l->n, 1);
    t->specials = calloc(l->n, sizeof *t->specials);
    t->text_bytes = malloc(bytes + 1);
    t->piece_bytes = malloc(bytes + 1);
    t->slots = malloc(slots * sizeof *t->slots);
    if (!t->text || !t->piece || !t->type || !t->specials || !t->text_bytes || !t->piece_bytes ||
        !t->slots)
        return pd_fail(PD_ENOMEM, "no memory for the tokenizer's %zu tokens", l->n);
    t->slot_mask = slots - 1;
    memset(t->slots, 0xff, slots * sizeof *t->slots);
    char *out = t->text_bytes;
    for (uint32_t i = 0; i < t->n; i++) {
        pd_str s = l->tokens[i];
        if (s.n)
            memcpy(out, s.p, s.n);
        t->text[i] = (pd_str){out, s.n};
        t->type[i] = l->types ? (uint8_t)l->types[i] : TOK_NORMAL;
        t->longest = s.n > t->longest ? s.n : t->longest;
        if (s.n)
            t->slots[find_slot(t, out, s.n)] =
                i; /* of two equal tokens the last counts, as in llama.cpp */
        out += s.n;
    }
    fill_bytes(t);
    fill_specials(t);
    fill_pieces(t);
    return PD_OK;
}

/* Scores to ranks: the float's bits in numeric order, turned round, because the highest score is
 * joined first. */
static pd_err copy_scores(pd_tokenizer *t, const tok_lists *l) {
    t->order = malloc(l->n * sizeof *t->order);
    if (!t->order)
        return pd_fail(PD_ENOMEM, "no memory for the tokenizer's %zu scores", l->n);
    for (uint32_t i = 0; i < t->n; i++) {
        float score = l->scores[i] + 0.0f; /* -0 becomes 0 */
        uint32_t bits;
        if (isnan(score))
            return pd_fail(PD_EFORMAT, "the score of token %u is not a number", i);
        memcpy(&bits, &score, sizeof bits);
        t->order[i] = ~(bits >> 31 ? ~bits : bits | 0x80000000u);
    }
    return PD_OK;
}

/* ---- the whole ---- */

static void hash_str(pd_hash *h, pd_str s) {
    uint8_t n[8];
    pd_store64(n, s.n);
    pd_hash_add(h, n, 8);
    pd_hash_add(h, s.p, s.n);
}

/* As GGUF's list has it, "left right" in one string; tokens of tokenizer.json may hold spaces. */
static void hash_merge(pd_hash *h, const tok_pair_text *m, bool apart) {
    uint8_t n[8];
    pd_store64(n, m->left.n + (apart ? 0 : 1 + m->right.n));
    pd_hash_add(h, n, 8);
    pd_hash_add(h, m->left.p, m->left.n);
    if (!apart) {
        pd_hash_add(h, " ", 1);
        pd_hash_add(h, m->right.p, m->right.n);
    } else {
        hash_str(h, m->right);
    }
}

/* "peerd.tokenizer.v1" | kind | pre | n | tokens | types | per SPM token its order | n merges |
 * merges | rules */
static void make_digest(pd_tokenizer *t, const tok_lists *l) {
    uint8_t b[24];
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, "peerd.tokenizer.v1", 18);
    hash_str(&h, l->kind);
    hash_str(&h, l->pre);
    pd_store64(b, t->n);
    pd_hash_add(&h, b, 8);
    for (uint32_t i = 0; i < t->n; i++) {
        hash_str(&h, t->text[i]);
        pd_hash_add(&h, &t->type[i], 1);
        pd_store32(b, t->order ? t->order[i] : 0);
        pd_hash_add(&h, b, 4);
    }
    pd_store64(b, l->n_merges);
    pd_hash_add(&h, b, 8);
    for (size_t i = 0; i < l->n_merges; i++)
        hash_merge(&h, &l->merges[i], t->json);
    pd_writer w = pd_writer_of(b, sizeof b);
    pd_put_u32(&w, t->bos);
    pd_put_u32(&w, t->unknown);
    pd_put_u8(&w, t->adds_bos);
    pd_put_u8(&w, (uint8_t)t->space);
    pd_hash_add(&h, b, (size_t)(w.p - b));
    pd_hash_end(&h, t->digest);
}

pd_err tok_build(pd_tokenizer *t, const tok_lists *l) {
    pd_err e = copy_tokens(t, l);
    if (!e)
        e = l->scores ? copy_scores(t, l) : tok_merges_open(t, l->merges, l->n_merges);
    if (!e)
        make_digest(t, l);
    return e;
}

void tok_lists_free(tok_lists *l) {
    free(l->tokens);
    free(l->types);
    free(l->scores);
    free(l->merges);
    *l = (tok_lists){0};
}

void pd_tokenizer_close(pd_tokenizer *t) {
    if (!t)
        return;
    free(t->text);
    free(t->piece);
    free(t->type);
    free(t->text_bytes);
    free(t->piece_bytes);
    free(t->slots);
    free(t->specials);
    free(t->late);
    free(t->merges);
    tok_split_close(t->split);
    free(t->order);
    free(t->chat_system);
    free(t);
}

/* ---- what it knows ---- */

const char *pd_tokenizer_piece(const pd_tokenizer *t, uint32_t id, size_t *n) {
    assert(id < t->n);
    *n = t->piece[id].n;
    return t->piece[id].p;
}

uint32_t pd_tokenizer_vocab(const pd_tokenizer *t) {
    return t->n;
}

bool pd_tokenizer_adds_bos(const pd_tokenizer *t) {
    return t->adds_bos;
}

uint32_t pd_tokenizer_bos(const pd_tokenizer *t) {
    return t->bos;
}

uint32_t pd_tokenizer_eos(const pd_tokenizer *t) {
    return t->eos;
}

uint32_t pd_tokenizer_find(const pd_tokenizer *t, const char *text) {
    return tok_find(t, text, strlen(text));
}

pd_chat pd_tokenizer_chat(const pd_tokenizer *t) {
    return t->chat;
}

void pd_tokenizer_digest(const pd_tokenizer *t, uint8_t out[32]) {
    memcpy(out, t->digest, 32);
}
