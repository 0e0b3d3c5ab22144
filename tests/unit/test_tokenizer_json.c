/* test_tokenizer_json.c - tokenizer.json: the ids that its own library gives, for each family's
 * chain of parts, and no part that is silently something else.
 */
#include "gguf_writer.h"
#include "peerd/file.h"
#include "peerd/tokenizer.h"
#include "test.h"

#include <cjson/cJSON.h>

static char path[] = "/tmp/pd-tokenizer-json-XXXXXX", beside[] = "/tmp/pd-tokenizer-json-XXXXXX";

static void remove_files(void) {
    unlink(path);
    unlink(beside);
}

static pd_tokenizer *open_json(const char *file, const char *settings) {
    pd_tokenizer_files files = {.tokenizer = file, .settings = settings};
    pd_tokenizer *t = NULL;
    ck_assert_msg(pd_tokenizer_open_json(&files, &t) == PD_OK, "%s", pd_fail_text());
    return t;
}

static bool same_ids(const pd_tokenizer *t, const char *text, bool special, const cJSON *want) {
    uint32_t *ids;
    size_t n, i = 0;
    const cJSON *id;
    ck_assert_int_eq(pd_tokenizer_encode(t, text, strlen(text), special, &ids, &n), PD_OK);
    bool same = n == (size_t)cJSON_GetArraySize(want);
    cJSON_ArrayForEach(id, want) if (same) same = ids[i++] == (uint32_t)id->valueint;
    free(ids);
    return same;
}

static void check_vectors(const char *name) {
    char rel[128], file[4096];
    uint8_t *lines;
    size_t n;
    int wrong = 0, seen = 0;
    snprintf(rel, sizeof rel, "tests/vectors/hf/%s.json", name);
    snprintf(file, sizeof file, "%s", pd_test_path(rel));
    pd_tokenizer *t = open_json(file, NULL);
    snprintf(rel, sizeof rel, "tests/vectors/hf/%s.jsonl", name);
    ck_assert_int_eq(pd_file_read(pd_test_path(rel), 1 << 20, &lines, &n), PD_OK);
    for (char *line = strtok((char *)lines, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *j = cJSON_Parse(line);
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(j, "text"));
        for (int special = 0; special < 2; special++)
            if (!same_ids(t, text, special,
                          cJSON_GetObjectItem(j, special ? "ids_special" : "ids"))) {
                printf("%s, special %d: other ids for: %s\n", name, special, line);
                wrong++;
            }
        cJSON_Delete(j);
        seen++;
    }
    ck_assert_int_eq(wrong, 0);
    ck_assert_int_ge(seen, 28);
    free(lines);
    pd_tokenizer_close(t);
}

static const char *const families[] = {"gpt2",    "prefix",    "smollm",  "neox",
                                       "qwen2",   "llama3",    "removed", "llama2",
                                       "mistral", "metaspace", "unfused"};

/* Ids that the `tokenizers` package gave for the same files: tests/vectors/hf/make_tokenizers.py.
 */
START_TEST(ids_match_the_vectors) {
    check_vectors(families[_i]);
}
END_TEST

/* The vocabulary of a tokenizer.json as a GGUF file's. */
static pd_tokenizer *open_as_gguf(const char *name, const char *pre) {
    static const char *tokens[512], *merges[512];
    static char lines[512][64];
    static int32_t types[512];
    char rel[128];
    uint8_t *text;
    size_t n, n_merges = 0;
    const cJSON *x;
    snprintf(rel, sizeof rel, "tests/vectors/hf/%s.json", name);
    ck_assert_int_eq(pd_file_read(pd_test_path(rel), 1 << 20, &text, &n), PD_OK);
    cJSON *j = cJSON_Parse((char *)text);
    const cJSON *model = cJSON_GetObjectItem(j, "model");
    for (n = 0; n < 512; n++) {
        tokens[n] = "";
        types[n] = 5;
    }
    n = 0;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(model, "vocab")) {
        size_t id = (size_t)x->valueint;
        tokens[id] = x->string;
        types[id] = 1;
        n = id >= n ? id + 1 : n;
    }
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(j, "added_tokens")) {
        size_t id = (size_t)cJSON_GetObjectItem(x, "id")->valueint;
        tokens[id] = cJSON_GetStringValue(cJSON_GetObjectItem(x, "content"));
        types[id] = cJSON_IsTrue(cJSON_GetObjectItem(x, "special")) ? 3 : 4;
        n = id >= n ? id + 1 : n;
    }
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(model, "merges")) {
        snprintf(lines[n_merges], 64, "%s %s", x->child->valuestring, x->child->next->valuestring);
        merges[n_merges] = lines[n_merges];
        n_merges++;
    }
    gw w = gw_new();
    gw_str(&w, "tokenizer.ggml.model", "gpt2");
    gw_str(&w, "tokenizer.ggml.pre", pre);
    gw_strs(&w, "tokenizer.ggml.tokens", tokens, n);
    gw_i32s(&w, "tokenizer.ggml.token_type", types, n);
    gw_strs(&w, "tokenizer.ggml.merges", merges, n_merges);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", 256);
    gw_save(&w, path);
    cJSON_Delete(j);
    free(text);
    pd_gguf *g;
    pd_tokenizer *t;
    ck_assert_int_eq(pd_gguf_open(path, &g), PD_OK);
    ck_assert_msg(pd_tokenizer_open(g, &t) == PD_OK, "%s", pd_fail_text());
    pd_gguf_close(g);
    return t;
}

/* What only tokenizer.json does: normal forms, and 's with a long s. */
static bool is_plain(const char *text) {
    return !strstr(text, "\u017f") && !strstr(text, "\u0301") && !strstr(text, "\u1100");
}

/* A family has one set of ids, whichever file its tokenizer comes from. */
START_TEST(gguf_files_of_the_same_vocabulary_give_the_same_ids) {
    static const char *const pairs[][2] = {
        {"gpt2", "gpt-2"}, {"smollm", "smollm"}, {"qwen2", "qwen2"}, {"llama3", "llama-bpe"}};
    for (int i = 0; i < 4; i++) {
        char rel[128];
        uint8_t *lines;
        size_t n;
        pd_tokenizer *t = open_as_gguf(pairs[i][0], pairs[i][1]);
        ck_assert(pd_tokenizer_adds_bos(t) == (i == 3));
        snprintf(rel, sizeof rel, "tests/vectors/hf/%s.jsonl", pairs[i][0]);
        ck_assert_int_eq(pd_file_read(pd_test_path(rel), 1 << 20, &lines, &n), PD_OK);
        for (char *line = strtok((char *)lines, "\n"); line; line = strtok(NULL, "\n")) {
            cJSON *j = cJSON_Parse(line);
            const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(j, "text"));
            ck_assert_msg(!is_plain(text) ||
                              same_ids(t, text, false, cJSON_GetObjectItem(j, "ids")),
                          "%s: other ids for: %s", pairs[i][1], line);
            cJSON_Delete(j);
        }
        free(lines);
        pd_tokenizer_close(t);
    }
}
END_TEST

/* ---- small files, written here ---- */

#define MODEL(vocab, merges, more)                                                                 \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]" more "}"
#define VOCAB  "\"<unk>\":0,\"a\":1,\"b\":2,\"\u2581\":3,\"aa\":4,\"\u2581a\":5,\"<s>\":6,\"</s>\":7"
#define MERGES "\"a a\",[\"\u2581\",\"a\"]"
#define UNK    ",\"unk_token\":\"<unk>\""
#define META(scheme)                                                                               \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"split\":false,"        \
    "\"prepend_scheme\":\"" scheme "\"},"
#define ADDED(id, text, more) "{\"id\":" id ",\"content\":\"" text "\",\"special\":true" more "}"
#define ADDS(list)            "\"added_tokens\":[" list "],"
#define SOUND                 "{" META("first") MODEL(VOCAB, MERGES, UNK) "}"

static void write_text(const char *file, const char *text) {
    gw_write(file, text, strlen(text));
}

static void refuse_with(const char *file, const char *settings, pd_err code, const char *says) {
    pd_tokenizer_files files = {.tokenizer = path, .settings = settings ? beside : NULL};
    pd_tokenizer *t = NULL;
    write_text(path, file);
    if (settings)
        write_text(beside, settings);
    ck_assert_msg(pd_tokenizer_open_json(&files, &t) == code, "%s: %s", file, pd_fail_text());
    ck_assert_msg(strstr(pd_fail_text(), says) != NULL, "%s, not %s", pd_fail_text(), says);
    ck_assert_msg(strstr(pd_fail_text(), "/tmp/pd-tokenizer-json") == pd_fail_text(),
                  "%s names no file", pd_fail_text());
    ck_assert_ptr_null(t);
}

static void refuse(const char *file, pd_err code, const char *says) {
    refuse_with(file, NULL, code, says);
}

static pd_tokenizer *open_text(const char *file, const char *settings) {
    write_text(path, file);
    if (settings)
        write_text(beside, settings);
    return open_json(path, settings ? beside : NULL);
}

START_TEST(models_that_are_not_ours_are_refused) {
    refuse("{}", PD_EFORMAT, "no model");
    refuse("{\"model\":{\"type\":\"Unigram\"}}", PD_EUNSUPPORTED, "model Unigram");
    refuse("{\"model\":{\"type\":\"WordPiece\"}}", PD_EUNSUPPORTED, "model WordPiece");
    refuse("{" META("first") MODEL(VOCAB, MERGES, ",\"dropout\":0.1") "}", PD_EUNSUPPORTED,
           "dropout");
    refuse("{" META("first") MODEL(VOCAB, MERGES, ",\"end_of_word_suffix\":\"</w>\"") "}",
           PD_EUNSUPPORTED, "end_of_word_suffix");
    refuse("{" META("first") MODEL(VOCAB, MERGES, ",\"unk_token\":\"?\"") "}", PD_EFORMAT,
           "unk_token is ?");
    refuse("{" META("first") MODEL(VOCAB, MERGES, ",\"byte_fallback\":true") "}", PD_EFORMAT,
           "byte 0 has no token");
    refuse("not JSON", PD_EFORMAT, "is not JSON");
    refuse("{\"model\":{\"vocab\":{\"a\\u0000b\":1}}}", PD_EFORMAT, "NUL");
}
END_TEST

#define NORM(parts) "{\"normalizer\":" parts "," META("first") MODEL(VOCAB, MERGES, UNK) "}"
#define PRE(parts)  "{\"pre_tokenizer\":" parts "," MODEL(VOCAB, MERGES, UNK) "}"
#define SPLIT(regex, behavior)                                                                     \
    PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"    \
        "\"" regex "\"},\"behavior\":\"" behavior                                                  \
        "\",\"invert\":false},{\"type\":\"ByteLevel\"}]}")

/* Each would cut texts in another way than the model was trained with. */
START_TEST(parts_that_are_not_ours_are_refused_by_name) {
    static const char *const normalizers[] = {"NFKC", "Lowercase", "Strip", "Precompiled"};
    static const char *const pres[] = {"Whitespace", "Punctuation", "BertPreTokenizer",
                                       "UnicodeScripts"};
    char file[1024], says[64];
    for (int i = 0; i < 4; i++) {
        snprintf(file, sizeof file, NORM("{\"type\":\"%s\"}"), normalizers[i]);
        snprintf(says, sizeof says, "normalizer %s", normalizers[i]);
        refuse(file, PD_EUNSUPPORTED, says);
        snprintf(file, sizeof file, PRE("{\"type\":\"%s\"}"), pres[i]);
        snprintf(says, sizeof says, "pre_tokenizer %s", pres[i]);
        refuse(file, PD_EUNSUPPORTED, says);
    }
    refuse(NORM("{\"type\":\"Prepend\",\"prepend\":\"_\"}"), PD_EUNSUPPORTED, "Prepend");
    refuse(NORM("{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}"), PD_EUNSUPPORTED, "together");
    refuse(NORM("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" \"},\"content\":\"\u2581\"}"),
           PD_EUNSUPPORTED, "Replace");
    refuse(NORM("{\"type\":\"Sequence\"}"), PD_EFORMAT, "no list normalizers");
    refuse("{" MODEL(VOCAB, MERGES, UNK) "}", PD_EUNSUPPORTED, "together");
    refuse(PRE("{\"type\":\"Digits\"}"), PD_EUNSUPPORTED, "together");
    refuse(PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\"}"), PD_EUNSUPPORTED, "U+2581");
    refuse("{" META("sometimes") MODEL(VOCAB, MERGES, UNK) "}", PD_EFORMAT, "prepend_scheme");
    refuse(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":"
               "\"Digits\"}]}"),
           PD_EUNSUPPORTED, "Digits is not supported behind");
    refuse(SPLIT("a", "MergedWithNext"), PD_EUNSUPPORTED, "behavior");
    refuse("{" META("first") "\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL(
               VOCAB, MERGES, UNK) "}",
           PD_EUNSUPPORTED, "post_processor BertProcessing");
    refuse(
        "{" META(
            "first") "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                     "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"</s>\"}}]}," MODEL(
                         VOCAB, MERGES, UNK) "}",
        PD_EUNSUPPORTED, "one token before");
    refuse("{" META("first") "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
                             "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
                             "\"special_tokens\":{\"<s>\":{\"ids\":[8]}}}," MODEL(VOCAB, MERGES,
                                                                                  UNK) "}",
           PD_EFORMAT, "a token that is not there");
}
END_TEST

/* Oniguruma's and PCRE2's languages differ here; a pattern that PCRE2 would read its own way must
 * not pass. */
START_TEST(patterns_that_mean_something_else_here_are_refused) {
    static const char *const patterns[] = {
        "\\\\w+",  "\\\\bx",      "\\\\h",       "^a",        "a$",        "a.b",     "a{1,3}+",
        "a{2}?",   "a{,3}",       "[a&&[b]]",    "[a[b]]",    "[^\\\\S]+", "(?i)a",   "(?<n>a)",
        "(*FAIL)", "\\\\p{Nope}", "[[:alpha:]]", "a*",        "(?>a)",     "\\\\Ra",  "\\\\x41",
        "(a",      "[]a]",        "\\\\Qa",      "\\\\u0041", "(?#a)a",    "\\\\p{L", "a\\\\"};
    char file[1024];
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        snprintf(file, sizeof file, SPLIT("%s", "Isolated"), patterns[i]);
        refuse(file, PD_EUNSUPPORTED, "the pattern ");
    }
    char *long_file = malloc(6000), *a = malloc(4500);
    memset(a, 'a', 4499);
    a[4499] = 0;
    snprintf(long_file, 6000, SPLIT("%s", "Isolated"), a);
    refuse(long_file, PD_EUNSUPPORTED, "too long");
    free(long_file);
    free(a);
}
END_TEST

/* A file's pattern may try endlessly many ways; the text is then refused, not waited for. */
START_TEST(a_pattern_that_never_ends_is_given_up) {
    pd_tokenizer *t = open_text(SPLIT("(?:a|aa)+[bc]", "Isolated"), NULL);
    char text[65];
    uint32_t *ids;
    size_t n;
    memset(text, 'a', 64);
    ck_assert_int_eq(pd_tokenizer_encode(t, text, 64, false, &ids, &n), PD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "take too long"));
    pd_tokenizer_close(t);
}
END_TEST

START_TEST(lists_that_cannot_be_are_refused) {
    refuse("{" META("first") "\"model\":{\"vocab\":[],\"merges\":[]}}", PD_EFORMAT, "no vocab");
    refuse("{" META("first") "\"model\":{\"vocab\":{\"a\":0}}}", PD_EFORMAT, "no merges");
    refuse("{" META("first") MODEL("", "", "") "}", PD_EFORMAT, "there are 0 tokens");
    refuse("{" META("first") MODEL("\"a\":0,\"b\":0", "", "") "}", PD_EFORMAT,
           "id 0 is both a and b");
    refuse("{" META("first") MODEL("\"a\":-1", "", "") "}", PD_EFORMAT, "token a has an id");
    refuse("{" META("first") MODEL("\"a\":0.5", "", "") "}", PD_EFORMAT, "token a has an id");
    refuse("{" META("first") MODEL("\"a\":4194304", "", "") "}", PD_EFORMAT, "token a has an id");
    refuse("{" META("first") MODEL("\"a\":4194303", "", "") "}", PD_EFORMAT,
           "ids go up to 4194303, but there are 1 tokens");
    static const char *const merges[] = {"\"aa\"",
                                         "\"a a a\"",
                                         "3",
                                         "[\"a\"]",
                                         "[\"a\",2]",
                                         "[\"\",\"a\"]",
                                         "\"a \"",
                                         "\"b b\"",
                                         "[\"a\",\"z\"]",
                                         "{\"a\":\"a\"}",
                                         "[\"a\",\"a\",\"a\"]"};
    char file[1024];
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        snprintf(file, sizeof file, "{" META("first") MODEL(VOCAB, "\"a a\",%s", UNK) "}",
                 merges[i]);
        refuse(file, PD_EFORMAT, "merge 1 of the tokenizer");
    }
    refuse("{" ADDS("{\"id\":7}") META("first") MODEL(VOCAB, MERGES, UNK) "}", PD_EFORMAT,
           "no content");
    refuse("{" ADDS(ADDED("8", "", "")) META("first") MODEL(VOCAB, MERGES, UNK) "}", PD_EFORMAT,
           "empty");
    refuse("{" ADDS(ADDED("7", "<e>", "")) META("first") MODEL(VOCAB, MERGES, UNK) "}", PD_EFORMAT,
           "id 7 is both </s> and <e>");
    refuse("{" ADDS(ADDED("8", "</s>", "")) META("first") MODEL(VOCAB, MERGES, UNK) "}", PD_EFORMAT,
           "token </s> has two ids");
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file,
                 "{" ADDS(ADDED("8", "<x>", ",\"%s\":true")) META("first")
                     MODEL(VOCAB, MERGES, UNK) "}",
                 flags[i]);
        refuse(file, PD_EUNSUPPORTED, flags[i]);
    }
    refuse(
        "{" ADDS(ADDED("8", "<x>", ",\"normalized\":true")) "\"normalizer\":{\"type\":\"Replace\","
                                                            "\"pattern\":{\"String\":\" "
                                                            "\"},\"content\":\"\u2581\"}," MODEL(
                                                                VOCAB, MERGES, UNK) "}",
        PD_EUNSUPPORTED, "normalised text");
    refuse_with(SOUND, "{\"bos_token\":\"<bos>\"}", PD_EFORMAT, "bos_token is <bos>");
    refuse_with(SOUND, "{\"eos_token\":{\"content\":\"<eos>\"}}", PD_EFORMAT, "eos_token is <eos>");
    refuse_with(SOUND, "{\"add_bos_token\":true}", PD_EFORMAT, "asks for a BOS token");
    refuse_with(SOUND, "[]", PD_EFORMAT, "is not a JSON object");
}
END_TEST

/* Where names of BOS, EOS and the chat template come from, and what wins. */
START_TEST(settings_name_the_ends_and_the_template) {
    pd_tokenizer *t = open_text(SOUND, NULL);
    ck_assert(!pd_tokenizer_adds_bos(t) && pd_tokenizer_bos(t) == UINT32_MAX);
    ck_assert(pd_tokenizer_eos(t) == UINT32_MAX && pd_tokenizer_chat(t) == PD_CHAT_NONE);
    ck_assert_uint_eq(pd_tokenizer_vocab(t), 8);
    pd_tokenizer_close(t);
    t = open_text(SOUND,
                  "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"add_bos_token\":"
                  "true,\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"\"},{\"name\":"
                  "\"default\",\"template\":\"[INST] <<SYS>>\"}]}");
    ck_assert(pd_tokenizer_adds_bos(t) && pd_tokenizer_bos(t) == 6 && pd_tokenizer_eos(t) == 7);
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_LLAMA2);
    pd_tokenizer_close(t);
    pd_tokenizer_files files = {.tokenizer = path, .config = beside};
    write_text(beside, "{\"bos_token_id\":6,\"eos_token_id\":[7,5]}");
    ck_assert_int_eq(pd_tokenizer_open_json(&files, &t), PD_OK);
    ck_assert(!pd_tokenizer_adds_bos(t) && pd_tokenizer_bos(t) == 6 && pd_tokenizer_eos(t) == 7);
    pd_tokenizer_close(t);
    write_text(beside, "{\"eos_token_id\":8}");
    ck_assert_int_eq(pd_tokenizer_open_json(&files, &t), PD_EFORMAT);
    files.config = NULL;
    files.chat = beside;
    write_text(beside, "{{ '<|user|>' + '<|assistant|>' + eos_token }}");
    ck_assert_int_eq(pd_tokenizer_open_json(&files, &t), PD_OK); /* Zephyr's, but no EOS is named */
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_NONE);
    pd_tokenizer_close(t);
    files = (pd_tokenizer_files){.tokenizer = "/nonexistent/tokenizer.json"};
    ck_assert_int_eq(pd_tokenizer_open_json(&files, &t), PD_ENOENT);
}
END_TEST

/* Nodes of a run compare it: what changes ids must change it, what does not must not. */
START_TEST(digest_covers_what_ids_depend_on) {
    const char *file[] = {
        SOUND,
        "{\"padding\":{}," META("first") MODEL(VOCAB, MERGES, UNK) "}",
        "{" META("always") MODEL(VOCAB, MERGES, UNK) "}",
        "{" META("first") MODEL(VOCAB, "\"a a\"", UNK) "}",
        "{" META("first") MODEL(VOCAB, MERGES, UNK ",\"fuse_unk\":true") "}",
        "{" META("first") MODEL(VOCAB, MERGES, "") "}",
        "{\"normalizer\":{\"type\":\"NFC\"}," META("first") MODEL(VOCAB, MERGES, UNK) "}",
        "{" ADDS(ADDED("6", "<s>", "")) META("first") MODEL(VOCAB, MERGES, UNK) "}",
        "{" ADDS(ADDED("6", "<s>", ",\"normalized\":true")) META("first")
            MODEL(VOCAB, MERGES, UNK) "}",
    };
    enum { N = sizeof file / sizeof *file };
    uint8_t d[N][32];
    for (int i = 0; i < N; i++) {
        pd_tokenizer *t = open_text(file[i], NULL);
        pd_tokenizer_digest(t, d[i]);
        pd_tokenizer_close(t);
    }
    ck_assert_mem_eq(d[0], d[1], 32);
    for (int i = 1; i < N; i++)
        for (int k = i + 1; k < N; k++)
            ck_assert_msg(memcmp(d[i], d[k], 32) != 0, "%d and %d", i, k);
}
END_TEST

/* Any byte of a file may be wrong, and any end missing: it opens or is refused, and what opens
 * encodes (the sanitizers watch). */
START_TEST(every_flipped_byte_encodes_or_is_refused) {
    static const char text[] = "aaaa <s>b</s>  12's \xff a<|end|><tool>";
    static const char *const names[] = {"tests/vectors/hf/neox.json",
                                        "tests/vectors/hf/metaspace.json"};
    pd_tokenizer_files files = {.tokenizer = path};
    for (int f = 0; f < 2; f++) {
        uint8_t *p;
        size_t n, opened = 0;
        ck_assert_int_eq(pd_file_read(pd_test_path(names[f]), 1 << 20, &p, &n), PD_OK);
        for (size_t i = 0; i < n; i += i < 900 ? 1 : 17) {
            pd_tokenizer *t;
            uint32_t *ids;
            size_t count;
            p[i] ^= i % 2 ? 0x04 : 0x81;
            gw_write(path, p, i % 5 ? n : i);
            if (pd_tokenizer_open_json(&files, &t) == PD_OK) {
                if (pd_tokenizer_encode(t, text, sizeof text - 1, true, &ids, &count) != PD_OK)
                    ck_abort_msg("byte %zu: %s", i, pd_fail_text());
                for (size_t k = 0; k < count; k++)
                    if (ids[k] >= pd_tokenizer_vocab(t))
                        ck_abort_msg("byte %zu: id %u", i, ids[k]);
                free(ids);
                pd_tokenizer_close(t);
                opened++;
            }
            p[i] ^= i % 2 ? 0x04 : 0x81;
        }
        ck_assert_uint_gt(opened, 0);
        free(p);
    }
}
END_TEST

/* A quarter of a million equal letters, and as many bytes of short words: neither may be quadratic.
 */
START_TEST(long_texts_take_little_time) {
    size_t n = 1 << 18, count;
    char *run = malloc(n), *words = malloc(n);
    memset(run, 'a', n);
    for (size_t i = 0; i < n; i++)
        words[i] = " b"[i % 2];
    static const char *const names[] = {"gpt2", "neox", "llama3", "mistral", "metaspace"};
    for (int k = 0; k < 5; k++) {
        char rel[128];
        uint32_t *ids;
        snprintf(rel, sizeof rel, "tests/vectors/hf/%s.json", names[k]);
        pd_tokenizer *t = open_json(pd_test_path(rel), NULL);
        ck_assert_int_eq(pd_tokenizer_encode(t, run, n, true, &ids, &count), PD_OK);
        free(ids);
        ck_assert_int_eq(pd_tokenizer_encode(t, words, n, true, &ids, &count), PD_OK);
        free(ids);
        pd_tokenizer_close(t);
    }
    free(run);
    free(words);
}
END_TEST

static void add_tests(TCase *tc) {
    close(mkstemp(path));
    close(mkstemp(beside));
    atexit(remove_files);
    tcase_add_loop_test(tc, ids_match_the_vectors, 0, sizeof families / sizeof *families);
    tcase_add_test(tc, gguf_files_of_the_same_vocabulary_give_the_same_ids);
    tcase_add_test(tc, models_that_are_not_ours_are_refused);
    tcase_add_test(tc, parts_that_are_not_ours_are_refused_by_name);
    tcase_add_test(tc, patterns_that_mean_something_else_here_are_refused);
    tcase_add_test(tc, a_pattern_that_never_ends_is_given_up);
    tcase_add_test(tc, lists_that_cannot_be_are_refused);
    tcase_add_test(tc, settings_name_the_ends_and_the_template);
    tcase_add_test(tc, digest_covers_what_ids_depend_on);
    tcase_add_test(tc, every_flipped_byte_encodes_or_is_refused);
    tcase_add_test(tc, long_texts_take_little_time);
}

PD_TEST_MAIN("tokenizer_json", 60)
