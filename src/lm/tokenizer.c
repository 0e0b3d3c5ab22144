/* tokenizer.c - the vocabulary of a GGUF file and its rules: read, checked, copied.
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

#define KEY(name) "tokenizer.ggml." name

/* What open reads and throws away. */
typedef struct lists {
    pd_str kind, pre;
    pd_str *tokens, *merges;
    int32_t *types;
    float *scores;
    size_t n, n_merges;
} lists;

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
 * in order. */
static uint32_t spelling_of(unsigned byte) {
    static const uint8_t visible[][2] = {{33, 126}, {161, 172}, {174, 255}};
    uint32_t hidden = 0;
    for (unsigned b = 0, k = 0; b < byte; b++) {
        while (k < 3 && b > visible[k][1])
            k++;
        hidden += k == 3 || b < visible[k][0];
    }
    for (unsigned k = 0; k < 3; k++)
        if (byte >= visible[k][0] && byte <= visible[k][1])
            return byte;
    return 256 + hidden;
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

static int longest_first(const void *a, const void *b, void *ctx) {
    const pd_tokenizer *t = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    size_t nx = t->text[x].n, ny = t->text[y].n;
    return nx != ny ? (nx < ny) - (nx > ny) : (x > y) - (x < y);
}

static void fill_specials(pd_tokenizer *t) {
    for (uint32_t i = 0; i < t->n; i++)
        if ((t->type[i] == TOK_CONTROL || t->type[i] == TOK_USER || t->type[i] == TOK_UNKNOWN) &&
            t->text[i].n)
            t->specials[t->n_specials++] = i;
    qsort_r(t->specials, t->n_specials, sizeof *t->specials, longest_first, t);
}

static pd_err copy_tokens(pd_tokenizer *t, const lists *l) {
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
static pd_err copy_scores(pd_tokenizer *t, const lists *l) {
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

/* ---- open ---- */

static pd_err read_id(const pd_gguf *g, const char *key, size_t n, uint32_t *out) {
    uint64_t id;
    *out = TOK_NONE;
    if (!pd_gguf_u64(g, key, &id))
        return PD_OK;
    if (id >= n)
        return pd_fail(PD_EFORMAT, "%s is %llu, but there are %zu tokens", key,
                       (unsigned long long)id, n);
    *out = (uint32_t)id;
    return PD_OK;
}

static pd_err read_list_of_strs(const pd_gguf *g, const char *key, pd_str **out, size_t *n) {
    if (!pd_gguf_count(g, key, n) || *n == 0 || *n >= INT32_MAX)
        return pd_fail(PD_EFORMAT, "the file has no %s", key);
    *out = calloc(*n, sizeof **out);
    if (!*out)
        return pd_fail(PD_ENOMEM, "no memory for %zu strings of %s", *n, key);
    return pd_gguf_strs(g, key, *out, *n) ? PD_OK
                                          : pd_fail(PD_EFORMAT, "%s is not a list of strings", key);
}

static pd_err read_types(const pd_gguf *g, lists *l) {
    size_t n;
    if (!pd_gguf_count(g, KEY("token_type"), &n))
        return PD_OK; /* all normal */
    l->types = calloc(l->n, sizeof *l->types);
    if (!l->types)
        return pd_fail(PD_ENOMEM, "no memory for %zu token types", l->n);
    if (!pd_gguf_i32s(g, KEY("token_type"), l->types, l->n))
        return pd_fail(PD_EFORMAT, KEY("token_type") " is not a list of %zu integers, one a token",
                       l->n);
    for (size_t i = 0; i < l->n; i++)
        if (l->types[i] < 0 || l->types[i] > TOK_BYTE)
            return pd_fail(PD_EFORMAT, "token %zu has type %d, which GGUF does not define", i,
                           l->types[i]);
    return PD_OK;
}

static pd_err read_scores(const pd_gguf *g, lists *l) {
    l->scores = calloc(l->n, sizeof *l->scores);
    if (!l->scores)
        return pd_fail(PD_ENOMEM, "no memory for %zu scores", l->n);
    if (!pd_gguf_f32s(g, KEY("scores"), l->scores, l->n))
        return pd_fail(PD_EFORMAT, KEY("scores") " is not a list of %zu float32, one a token",
                       l->n);
    return PD_OK;
}

/* Which tokens mean what; llama.cpp's defaults where a file is silent: SPM adds BOS and a leading
 * space, BPE neither. */
static pd_err read_rules(const pd_gguf *g, pd_tokenizer *t) {
    bool spm = t->kind == TOK_SPM;
    pd_err e = read_id(g, KEY("bos_token_id"), t->n, &t->bos);
    if (!e)
        e = read_id(g, KEY("eos_token_id"), t->n, &t->eos);
    if (!e)
        e = read_id(g, KEY("unknown_token_id"), t->n, &t->unknown);
    if (e)
        return e;
    t->adds_space = t->adds_bos = spm;
    pd_gguf_bool(g, KEY("add_space_prefix"), &t->adds_space);
    t->adds_space = t->adds_space && spm;
    if (pd_gguf_bool(g, KEY("add_bos_token"), &t->adds_bos) && t->adds_bos && t->bos == TOK_NONE)
        return pd_fail(PD_EFORMAT, "the tokenizer asks for a BOS token but names none");
    t->adds_bos = t->adds_bos && t->bos != TOK_NONE;
    return PD_OK;
}

static void hash_str(pd_hash *h, pd_str s) {
    uint8_t n[8];
    pd_store64(n, s.n);
    pd_hash_add(h, n, 8);
    pd_hash_add(h, s.p, s.n);
}

/* "peerd.tokenizer.v1" | kind | pre | n | tokens | types | per SPM token its order | n merges |
 * merges | rules */
static void make_digest(pd_tokenizer *t, const lists *l) {
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
        hash_str(&h, l->merges[i]);
    pd_writer w = pd_writer_of(b, sizeof b);
    pd_put_u32(&w, t->bos);
    pd_put_u32(&w, t->unknown);
    pd_put_u8(&w, t->adds_bos);
    pd_put_u8(&w, t->adds_space);
    pd_hash_add(&h, b, (size_t)(w.p - b));
    pd_hash_end(&h, t->digest);
}

static pd_err read_kind(const pd_gguf *g, pd_tokenizer *t, lists *l) {
    char shown[PD_SHOW_ROOM];
    if (!pd_gguf_str(g, KEY("model"), &l->kind))
        return pd_fail(PD_EFORMAT,
                       "the file has no tokenizer (" KEY("model") "): use a file of a whole model");
    if (l->kind.n == 4 && memcmp(l->kind.p, "gpt2", 4) == 0) {
        t->kind = TOK_BPE;
        if (!pd_gguf_str(g, KEY("pre"), &l->pre))
            l->pre = (pd_str){"default", 7};
        return PD_OK;
    }
    t->kind = TOK_SPM;
    l->pre = (pd_str){"", 0}; /* SPM has no use for it, whatever the file says */
    if (l->kind.n == 5 && memcmp(l->kind.p, "llama", 5) == 0)
        return PD_OK;
    return pd_fail(PD_EUNSUPPORTED, "tokenizer %s is not supported (gpt2 and llama are)",
                   pd_show(l->kind.p, l->kind.n, shown));
}

static pd_err read_all(const pd_gguf *g, pd_tokenizer *t, lists *l) {
    pd_str template = {"", 0};
    pd_err e = read_kind(g, t, l);
    if (!e)
        e = read_list_of_strs(g, KEY("tokens"), &l->tokens, &l->n);
    if (!e)
        e = read_types(g, l);
    if (!e && t->kind == TOK_SPM)
        e = read_scores(g, l);
    if (!e && t->kind == TOK_BPE)
        e = tok_split_open(l->pre, &t->split);
    if (!e && t->kind == TOK_BPE)
        e = read_list_of_strs(g, KEY("merges"), &l->merges, &l->n_merges);
    if (!e)
        e = copy_tokens(t, l);
    if (!e)
        e = read_rules(g, t);
    if (!e)
        e = t->kind == TOK_SPM ? copy_scores(t, l) : tok_merges_open(t, l->merges, l->n_merges);
    if (e)
        return e;
    make_digest(t, l);
    pd_gguf_str(g, "tokenizer.chat_template", &template);
    return tok_chat_open(t, template);
}

pd_err pd_tokenizer_open(const pd_gguf *g, pd_tokenizer **out) {
    lists l = {0};
    pd_tokenizer *t = calloc(1, sizeof *t);
    pd_err e = t ? read_all(g, t, &l) : pd_fail(PD_ENOMEM, "no memory for a tokenizer");
    free(l.tokens);
    free(l.merges);
    free(l.types);
    free(l.scores);
    if (e) {
        pd_tokenizer_close(t);
        return e;
    }
    *out = t;
    return PD_OK;
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
