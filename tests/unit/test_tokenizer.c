/* test_tokenizer.c - ids are the model's alphabet: another implementation's ids exactly, and no
 * file that cannot have been meant is believed.
 */
#include "gguf_writer.h"
#include "peerd/file.h"
#include "peerd/tokenizer.h"
#include "test.h"
#include "tiny_vocab.h"

#include <cjson/cJSON.h>

static char path[] = "/tmp/pd-tokenizer-XXXXXX";

static void remove_file(void) {
    unlink(path);
}

static pd_tokenizer *open_file(const char *file) {
    pd_gguf *g;
    pd_tokenizer *t;
    ck_assert_msg(pd_gguf_open(file, &g) == PD_OK, "%s", pd_fail_text());
    ck_assert_msg(pd_tokenizer_open(g, &t) == PD_OK, "%s", pd_fail_text());
    pd_gguf_close(g); /* the tokenizer keeps nothing of it */
    return t;
}

static pd_tokenizer *open_written(gw *w) {
    gw_save(w, path);
    return open_file(path);
}

static void expect_ids(const pd_tokenizer *t, const char *text, bool special, const cJSON *want) {
    uint32_t *ids;
    size_t n, i = 0;
    ck_assert_int_eq(pd_tokenizer_encode(t, text, strlen(text), special, &ids, &n), PD_OK);
    ck_assert_msg(n == (size_t)cJSON_GetArraySize(want), "%zu ids, not %d, for: %s", n,
                  cJSON_GetArraySize(want), text);
    const cJSON *id;
    cJSON_ArrayForEach(id, want) {
        ck_assert_msg(ids[i] == (uint32_t)id->valueint, "id %zu is %u, not %d, for: %s", i, ids[i],
                      id->valueint, text);
        i++;
    }
    free(ids);
}

static int check_vectors(const char *model, const char *vectors) {
    uint8_t *file;
    size_t n;
    int lines = 0;
    pd_tokenizer *t = open_file(model);
    ck_assert_int_eq(pd_file_read(pd_test_path(vectors), 1 << 20, &file, &n), PD_OK);
    for (char *line = strtok((char *)file, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *j = cJSON_Parse(line);
        ck_assert_ptr_nonnull(j);
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(j, "text"));
        expect_ids(t, text, false, cJSON_GetObjectItem(j, "ids"));
        expect_ids(t, text, true, cJSON_GetObjectItem(j, "ids_special"));
        cJSON_Delete(j);
        lines++;
    }
    free(file);
    pd_tokenizer_close(t);
    return lines;
}

/* Ids that llama.cpp gave for the same files: tests/vectors/lm/make_lm.py. */
START_TEST(ids_match_the_vectors) {
    const char *model = pd_test_path("examples/models/house-2m.gguf");
    ck_assert_int_eq(check_vectors(model, "tests/vectors/lm/house-2m.jsonl"), 18);
    model = pd_test_shared("data/stories260K/stories260K.gguf");
    if (model)
        ck_assert_int_eq(check_vectors(model, "tests/vectors/lm/stories260K.jsonl"), 18);
    model = getenv("PD_SMOLLM2");
    if (model)
        ck_assert_int_eq(check_vectors(model, "tests/vectors/lm/smollm2-135m-q4_1.jsonl"), 18);
    else
        printf("skipped: PD_SMOLLM2 does not name the SmolLM2 file\n");
}
END_TEST

static pd_tokenizer *open_bpe(const char *pre) {
    vocab *v = bpe_vocab();
    gw w = write_vocab(v, "gpt2", pre);
    free(v);
    return open_written(&w);
}

static pd_tokenizer *open_spm(void) {
    vocab *v = spm_vocab();
    gw w = write_vocab(v, "llama", NULL);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", 1);
    gw_u32(&w, "tokenizer.ggml.unknown_token_id", 0);
    free(v);
    return open_written(&w);
}

typedef pd_err encode_fn(const pd_tokenizer *, const char *, size_t, bool, uint32_t **, size_t *);

/* `want` ends with -1. */
static void expect(const pd_tokenizer *t, encode_fn *encode, const char *text, bool special,
                   const int *want) {
    uint32_t *ids;
    size_t n, k = 0;
    ck_assert_int_eq(encode(t, text, strlen(text), special, &ids, &n), PD_OK);
    for (; want[k] >= 0; k++)
        ck_assert_msg(k < n && ids[k] == (uint32_t)want[k], "id %zu of: %s", k, text);
    ck_assert_msg(k == n, "%zu ids for: %s", n, text);
    free(ids);
}

START_TEST(merges_go_by_rank_then_from_the_left) {
    pd_tokenizer *t = open_bpe("gpt-2");
    expect(t, pd_tokenizer_encode, "", true, (int[]){-1});
    expect(t, pd_tokenizer_encode, "aaaaaaa", false, (int[]){257, 256, 'a', -1});
    expect(t, pd_tokenizer_encode, "baaab", false, (int[]){'b', 256, 'a', 'b', -1});
    expect(t, pd_tokenizer_encode, "a a", false, (int[]){'a', ' ', 'a', -1});
    pd_tokenizer_close(t);
    t = open_spm();
    ck_assert(pd_tokenizer_adds_bos(t) && pd_tokenizer_bos(t) == 1 &&
              pd_tokenizer_eos(t) == UINT32_MAX);
    expect(t, pd_tokenizer_encode, "", true, (int[]){-1});
    expect(t, pd_tokenizer_encode, "aaaaaaa", false,
           (int[]){259, 262, 261, 260, -1}); /* aa before U+2581 a */
    expect(t, pd_tokenizer_encode_more, "aaaaaaa", false, (int[]){262, 261, 260, -1});
    expect(t, pd_tokenizer_encode, "a", false, (int[]){264, -1});
    expect(t, pd_tokenizer_encode, "bz\xc3\xa9", false,
           (int[]){259, 263, 3 + 'z', 3 + 0xc3, 3 + 0xa9, -1});
    pd_tokenizer_close(t);
}
END_TEST

START_TEST(special_tokens_are_cut_out_where_they_are_asked_for) {
    pd_tokenizer *t = open_bpe("gpt-2");
    const int plain[] = {'<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', 259, 'a', -1};
    expect(t, pd_tokenizer_encode, "<|im_end|><tool>a", true, (int[]){258, 259, 'a', -1});
    expect(t, pd_tokenizer_encode, "<|im_end|><tool>a", false, plain);
    pd_tokenizer_close(t);
    t = open_spm(); /* each special token starts a text anew */
    expect(t, pd_tokenizer_encode, "<s>a</s>b<unk>", true, (int[]){1, 264, 2, 259, 263, 0, -1});
    expect(t, pd_tokenizer_encode_more, "a</s>b", true, (int[]){260, 2, 259, 263, -1});
    pd_tokenizer_close(t);
}
END_TEST

/* Words as the patterns cut them, seen through a vocabulary in which every pair of letters or
 * digits merges. */
START_TEST(pre_tokenizers_cut_numbers_each_in_its_way) {
    const struct {
        const char *pre;
        int want[12];
    } c[] = {
        {"gpt-2", {256, 256, 256, '1', -1}},
        {NULL, {256, '1', 256, '1', '1', -1}}, /* default: groups of three */
        {"default", {256, '1', 256, '1', '1', -1}},
        {"smollm", {'1', '1', '1', '1', '1', '1', '1', -1}},
    };
    for (size_t i = 0; i < 4; i++) {
        vocab *v = bpe_vocab();
        v->tokens[256] = "11";
        v->n_merges = 1;
        v->merges[0] = "1 1";
        gw w = write_vocab(v, "gpt2", c[i].pre);
        pd_tokenizer *t = open_written(&w);
        expect(t, pd_tokenizer_encode, "1111111", false, c[i].want);
        pd_tokenizer_close(t);
        free(v);
    }
}
END_TEST

static void round_trip(const pd_tokenizer *t, const char *text, size_t n, size_t skip) {
    uint32_t *ids;
    size_t count, at = 0;
    char *back = malloc(n + skip + 1);
    ck_assert_int_eq(pd_tokenizer_encode(t, text, n, false, &ids, &count), PD_OK);
    for (size_t i = 0; i < count;
         i++) { /* no assertion here: each of them is a message to Check's parent */
        size_t k;
        const char *piece = pd_tokenizer_piece(t, ids[i], &k);
        if (at + k > n + skip)
            ck_abort_msg("%zu bytes and more came back of %zu", at, n);
        memcpy(back + at, piece, k);
        at += k;
    }
    ck_assert_uint_eq(at, n + skip);
    ck_assert_mem_eq(back + skip, text, n);
    free(back);
    free(ids);
}

/* A completion that cannot be written out as the bytes it stands for would be scored on another
 * text. */
START_TEST(any_bytes_come_back) {
    static const char *const alphabet[] = {"a",
                                           "aa",
                                           " ",
                                           "  ",
                                           "b",
                                           "\n",
                                           "\xc3\xa9",
                                           "\xff",
                                           "\xe2\x96",
                                           "7",
                                           "'s",
                                           "\xf0\x9f\x99\x82",
                                           "\xed\xa0\x80",
                                           "\xc2\x85",
                                           "\t",
                                           "!?"};
    pd_tokenizer *t[] = {open_bpe("gpt-2"), open_bpe("smollm"), open_bpe("default"), open_spm()};
    uint32_t seed = 12345;
    for (int i = 0; i < 400; i++) {
        char text[256];
        size_t n = 0;
        for (int k = (int)((seed = seed * 1664525 + 1013904223) >> 16) % 40; k > 0; k--) {
            const char *part = alphabet[(seed = seed * 1664525 + 1013904223) >> 28];
            memcpy(text + n, part, strlen(part));
            n += strlen(part);
        }
        for (int k = 0; k < 4; k++)
            round_trip(t[k], text, n, k == 3 && n);
    }
    char all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    for (int k = 0; k < 4; k++) {
        round_trip(t[k], all, 256, k == 3);
        pd_tokenizer_close(t[k]);
    }
}
END_TEST

/* A million equal letters are one word: merging must not be quadratic, nor cutting half a million
 * short words.  All of it takes about a second; the suite's time limit stops what takes minutes.
 */
START_TEST(long_texts_take_little_time) {
    size_t n = 1 << 20;
    char *run = malloc(n), *words = malloc(n), *spaces = malloc(n);
    memset(run, 'a', n);
    memset(spaces, ' ', n);
    for (size_t i = 0; i < n; i++)
        words[i] = " b"[i % 2];
    pd_tokenizer *t[] = {open_bpe("gpt-2"), open_bpe("default"), open_spm()};
    for (int k = 0; k < 3; k++) {
        round_trip(t[k], run, n, k == 2);
        round_trip(t[k], words, n, k == 2);
        round_trip(t[k], spaces, n, k == 2);
        pd_tokenizer_close(t[k]);
    }
    free(run);
    free(words);
    free(spaces);
}
END_TEST

static void refuse(gw *w, pd_err code, const char *says) {
    pd_gguf *g;
    pd_tokenizer *t = NULL;
    gw_save(w, path);
    ck_assert_msg(pd_gguf_open(path, &g) == PD_OK, "%s", pd_fail_text());
    ck_assert_int_eq(pd_tokenizer_open(g, &t), code);
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s, not %s", pd_fail_text(), says);
    ck_assert_ptr_null(t);
    pd_gguf_close(g);
}

START_TEST(what_we_do_not_do_is_refused_by_name) {
    vocab *v = bpe_vocab();
    gw w = write_vocab(v, "gpt2", "tekken");
    refuse(&w, PD_EUNSUPPORTED, "pre-tokenizer tekken");
    w = write_vocab(v, "bert", NULL);
    refuse(&w, PD_EUNSUPPORTED, "tokenizer bert");
    w = gw_new();
    refuse(&w, PD_EFORMAT, "no tokenizer");
    free(v);
}
END_TEST

START_TEST(lists_that_cannot_be_are_refused) {
    vocab *v = bpe_vocab(), *s = spm_vocab();
    gw w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "gpt2");
    refuse(&w, PD_EFORMAT, "no tokenizer.ggml.tokens");
    w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "gpt2");
    gw_i32s(&w, "tokenizer.ggml.tokens", v->types, 4);
    refuse(&w, PD_EFORMAT, "not a list of strings");
    w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "gpt2");
    gw_strs(&w, "tokenizer.ggml.tokens", v->tokens, v->n);
    refuse(&w, PD_EFORMAT, "no tokenizer.ggml.merges");
    w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "gpt2");
    gw_strs(&w, "tokenizer.ggml.tokens", v->tokens, v->n);
    gw_i32s(&w, "tokenizer.ggml.token_type", v->types, v->n - 1);
    refuse(&w, PD_EFORMAT, "token_type is not a list of 260");
    w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "llama");
    gw_strs(&w, "tokenizer.ggml.tokens", s->tokens, s->n);
    gw_f32s(&w, "tokenizer.ggml.scores", s->scores, s->n - 1);
    refuse(&w, PD_EFORMAT, "scores is not a list of 265");
    const char *ids[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                         "tokenizer.ggml.unknown_token_id"};
    for (int i = 0; i < 3; i++) {
        w = write_vocab(v, "gpt2", NULL);
        gw_u32(&w, ids[i], 260);
        refuse(&w, PD_EFORMAT, "is 260, but there are 260 tokens");
    }
    w = write_vocab(v, "gpt2", NULL);
    gw_bool(&w, "tokenizer.ggml.add_bos_token", 1);
    refuse(&w, PD_EFORMAT, "asks for a BOS token");
    v->types[7] = 9;
    w = write_vocab(v, "gpt2", NULL);
    refuse(&w, PD_EFORMAT, "token 7 has type 9");
    v->types[7] = 1;
    const char *merges[] = {"aa", "", " ", "a b", "aa  a", "zz z", "a "};
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        v->merges[1] = merges[i];
        w = write_vocab(v, "gpt2", NULL);
        refuse(&w, PD_EFORMAT, "merge 1 of the tokenizer");
    }
    s->scores[5] = 0.0f / 0.0f;
    w = write_vocab(s, "llama", NULL);
    refuse(&w, PD_EFORMAT, "score of token 5");
    free(v);
    free(s);
}
END_TEST

/* Any byte of a file may be wrong (of its long lists, every fifth is tried): it opens or is
 * refused, and what opens encodes (the sanitizers watch). */
START_TEST(every_flipped_byte_encodes_or_is_refused) {
    static const char text[] = "aaaa <s>b</s>  12's \xff <tool><|im_end|>";
    for (int kind = 0; kind < 2; kind++) {
        vocab *v = kind ? spm_vocab() : bpe_vocab();
        gw w = write_vocab(v, kind ? "llama" : "gpt2", kind ? NULL : "default");
        gw_u32(&w, "tokenizer.ggml.bos_token_id", 1);
        gw_str(&w, "tokenizer.chat_template", "'<|im_start|>system\nb<|im_end|>'");
        gw_buf b = gw_finish(&w);
        for (size_t i = 0; i < b.n; i += i < 400 ? 1 : 5) {
            b.p[i] ^= i % 2 ? 0xff : 0x04;
            gw_write(path, b.p, b.n);
            pd_gguf *g = NULL;
            pd_tokenizer *t = NULL;
            uint32_t *ids;
            size_t n;
            if (pd_gguf_open(path, &g) == PD_OK && pd_tokenizer_open(g, &t) == PD_OK) {
                if (pd_tokenizer_encode(t, text, sizeof text - 1, true, &ids, &n) != PD_OK)
                    ck_abort_msg("byte %zu: %s", i, pd_fail_text());
                for (size_t k = 0; k < n; k++)
                    if (ids[k] >= pd_tokenizer_vocab(t))
                        ck_abort_msg("byte %zu: id %u", i, ids[k]);
                free(ids);
            }
            pd_tokenizer_close(t);
            pd_gguf_close(g);
            b.p[i] ^= i % 2 ? 0xff : 0x04;
        }
        free(b.p);
        free(v);
    }
}
END_TEST

/* Nodes of a run compare it: what changes ids must change it. */
START_TEST(digest_covers_what_ids_depend_on) {
    uint8_t d[6][32];
    for (int i = 0; i < 6; i++) {
        vocab *v = bpe_vocab();
        if (i == 2)
            v->tokens[258] = "<|im_eng|>";
        if (i == 3)
            v->types[258] = 4;
        if (i == 4)
            v->n_merges = 1;
        gw w = write_vocab(v, "gpt2", i == 5 ? "smollm" : "gpt-2");
        pd_tokenizer *t = open_written(&w);
        pd_tokenizer_digest(t, d[i]);
        pd_tokenizer_close(t);
        free(v);
    }
    ck_assert_mem_eq(d[0], d[1], 32);
    for (int i = 1; i < 6; i++)
        for (int k = i + 1; k < 6; k++)
            ck_assert(memcmp(d[i], d[k], 32) != 0);
}
END_TEST

static void add_tests(TCase *tc) {
    close(mkstemp(path));
    atexit(remove_file);
    tcase_add_test(tc, ids_match_the_vectors);
    tcase_add_test(tc, merges_go_by_rank_then_from_the_left);
    tcase_add_test(tc, special_tokens_are_cut_out_where_they_are_asked_for);
    tcase_add_test(tc, pre_tokenizers_cut_numbers_each_in_its_way);
    tcase_add_test(tc, any_bytes_come_back);
    tcase_add_test(tc, long_texts_take_little_time);
    tcase_add_test(tc, what_we_do_not_do_is_refused_by_name);
    tcase_add_test(tc, lists_that_cannot_be_are_refused);
    tcase_add_test(tc, every_flipped_byte_encodes_or_is_refused);
    tcase_add_test(tc, digest_covers_what_ids_depend_on);
}

PD_TEST_MAIN("tokenizer", 60)
