/* test_data.c - what is scored is what was asked for, and a bad line is named, never half taken. */
#include "peerd/data.h"
#include "test.h"
#include "tiny_vocab.h"

static char model_path[] = "/tmp/pd-data-model-XXXXXX", path[] = "/tmp/pd-data-XXXXXX";

static void remove_files(void) {
    unlink(path);
    unlink(model_path);
}

/* tiny_vocab.h's byte-level BPE: a byte is its own id, aa 256, aaaa 257; here with markers 260 and
 * up. */
enum { AA = 256, AAAA = 257, IM_END = 258, TOOL = 259, IM_START = 260, EOS = 261, BOS = 262 };

static const char chatml[] =
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}";
static const char chatml_system[] =
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe "
    "b.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}";
static const char llama2[] = "{{ bos_token + '[INST] ' + '<<SYS>>\\n' + system + ' [/INST]' }}";
static const char zephyr[] = "{{ '<|user|>\n' + content + eos_token }} {{ '<|assistant|>\n' }}";

static pd_tokenizer *tokenizer(bool add_bos, const char *template) {
    vocab *v = bpe_vocab();
    add_token(v, "<|im_start|>", 3, 0);
    add_token(v, "</s>", 3, 0);
    add_token(v, "<s>", 3, 0);
    gw w = write_vocab(v, "gpt2", "gpt-2");
    gw_u32(&w, "tokenizer.ggml.bos_token_id", BOS);
    gw_u32(&w, "tokenizer.ggml.eos_token_id", EOS);
    gw_bool(&w, "tokenizer.ggml.add_bos_token", add_bos);
    if (template)
        gw_str(&w, "tokenizer.chat_template", template);
    gw_save(&w, model_path);
    free(v);
    pd_gguf *g;
    pd_tokenizer *t;
    ck_assert_int_eq(pd_gguf_open(model_path, &g), PD_OK);
    ck_assert_int_eq(pd_tokenizer_open(g, &t), PD_OK);
    pd_gguf_close(g);
    return t;
}

static pd_data *open_lines(const pd_tokenizer *t, const char *lines, uint32_t window) {
    pd_data *d;
    gw_write(path, lines, strlen(lines));
    ck_assert_msg(pd_data_open(path, t, &(pd_data_opts){.max_tokens = window}, &d) == PD_OK, "%s",
                  pd_fail_text());
    return d;
}

/* One sequence of an example: ids, with 1000 added where they are scored; -1 ends it. */
static void expect_seq(const pd_example *x, uint32_t which, const int *want) {
    size_t at = 0, n = 0;
    ck_assert_uint_lt(which, x->n_seqs);
    for (uint32_t i = 0; i < which; i++)
        at += x->seq_len[i];
    for (; want[n] >= 0; n++) {
        ck_assert_uint_lt(n, x->seq_len[which]);
        int got = (int)x->ids[at + n] + 1000 * x->scored[at + n];
        ck_assert_msg(got == want[n], "id %zu of sequence %u is %d, not %d", n, which, got,
                      want[n]);
    }
    ck_assert_uint_eq(n, x->seq_len[which]);
}

#define SEQ(...)                                                                                   \
    (const int[]) {                                                                                \
        __VA_ARGS__, -1                                                                            \
    }

START_TEST(each_kind_of_record_scores_what_it_should) {
    pd_tokenizer *t = tokenizer(false, NULL);
    pd_data *d =
        open_lines(t,
                   "\xef\xbb\xbf{\"text\": \"bcaa\"}\r\n"
                   "\n \t\r\n"
                   "{\"prompt\": \"bc\", \"completion\": \"aab\", \"note\": {\"text\": 1}}\n"
                   "{\"choices\": [\"b\", \"aa\"], \"prompt\": \"<tool>c\", \"answer\": 1}\n"
                   "{\"prompt\": \"b\", \"choices\": [\"a\", \"aaa\", \"c\"], \"answer\": 0}",
                   100);
    ck_assert_uint_eq(pd_data_count(d), 4);
    ck_assert_uint_eq(pd_data_skipped(d), 0);
    const pd_example *x = pd_data_at(d, 0);
    ck_assert(x->kind == PD_EXAMPLE_NLL && x->n_seqs == 1 && x->n_tokens == 3 && x->line == 1);
    expect_seq(x, 0, SEQ('b', 1000 + 'c', 1000 + AA));
    x = pd_data_at(d, 1);
    ck_assert(x->kind == PD_EXAMPLE_NLL && x->line == 4 && x->choice_ids == NULL);
    expect_seq(x, 0, SEQ('b', 'c', 1000 + AA, 1000 + 'b'));
    x = pd_data_at(d, 2); /* one token each: the prompt alone */
    ck_assert(x->kind == PD_EXAMPLE_CHOICE && x->n_seqs == 1 && x->n_choices == 2 &&
              x->answer == 1);
    ck_assert(x->choice_ids[0] == 'b' && x->choice_ids[1] == AA);
    expect_seq(x, 0, SEQ(TOOL, 'c'));
    x = pd_data_at(d, 3);
    ck_assert(x->n_seqs == 3 && x->n_choices == 3 && x->answer == 0 && !x->choice_ids &&
              x->n_tokens == 7);
    expect_seq(x, 0, SEQ('b', 1000 + 'a'));
    expect_seq(x, 1, SEQ('b', 1000 + AA, 1000 + 'a'));
    expect_seq(x, 2, SEQ('b', 1000 + 'c'));
    pd_data_close(d);
    pd_tokenizer_close(t);
    pd_data_close(NULL);
}
END_TEST

START_TEST(bos_stands_where_the_file_asks_for_it) {
    pd_tokenizer *t = tokenizer(true, NULL);
    pd_data *d = open_lines(t,
                            "{\"text\": \"b\"}\n{\"prompt\": \"\", \"completion\": \"b\"}\n"
                            "{\"prompt\": \"\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n",
                            100);
    expect_seq(pd_data_at(d, 0), 0, SEQ(BOS, 1000 + 'b'));
    expect_seq(pd_data_at(d, 1), 0, SEQ(BOS, 1000 + 'b'));
    expect_seq(pd_data_at(d, 2), 0, SEQ(BOS));
    pd_data_close(d);
    pd_tokenizer_close(t);
}
END_TEST

/* Of a text longer than the window each token is scored once, each with a token before it. */
START_TEST(a_long_text_becomes_several_examples) {
    for (int bos = 0; bos <= 1; bos++) {
        pd_tokenizer *t = tokenizer(bos, NULL);
        for (uint32_t window = PD_WINDOW_MIN; window < 12; window++) {
            pd_data *d = open_lines(t, "{\"text\": \"bcdefghijkl\"}", window);
            int next = 'b' + !bos;
            for (size_t i = 0; i < pd_data_count(d); i++) {
                const pd_example *x = pd_data_at(d, i);
                ck_assert(x->n_seqs == 1 && x->seq_len[0] <= window && x->seq_len[0] >= 2 &&
                          !x->scored[0]);
                ck_assert(!bos || x->ids[0] == BOS);
                for (uint32_t k = 1; k < x->seq_len[0]; k++) {
                    ck_assert(x->scored[k] || (bos && i && k == 1));
                    if (x->scored[k]) {
                        ck_assert_int_eq((int)x->ids[k], next);
                        ck_assert(x->ids[k - 1] == (uint32_t)next - 1 || (bos && next == 'b'));
                        next++;
                    }
                }
            }
            ck_assert_int_eq(next, 'l' + 1);
            pd_data_close(d);
        }
        pd_tokenizer_close(t);
    }
}
END_TEST

START_TEST(a_long_prompt_is_cut_at_its_left) {
    pd_tokenizer *t = tokenizer(true, NULL);
    const char lines[] = "{\"prompt\": \"bcdefg\", \"completion\": \"hi\"}\n"
                         "{\"prompt\": \"bcdefg\", \"choices\": [\"h\", \"ij\"], \"answer\": 0}\n"
                         "{\"prompt\": \"bcdefg\", \"choices\": [\"h\", \"i\"], \"answer\": 0}\n";
    pd_data *d = open_lines(t, lines, 5);
    expect_seq(pd_data_at(d, 0), 0, SEQ(BOS, 'f', 'g', 1000 + 'h', 1000 + 'i'));
    expect_seq(pd_data_at(d, 1), 0,
               SEQ(BOS, 'f', 'g', 1000 + 'h')); /* all choices after the same prompt */
    expect_seq(pd_data_at(d, 1), 1, SEQ(BOS, 'f', 'g', 1000 + 'i', 1000 + 'j'));
    expect_seq(pd_data_at(d, 2), 0, SEQ(BOS, 'd', 'e', 'f', 'g'));
    pd_data_close(d);
    pd_tokenizer_close(t);
}
END_TEST

static const char hello[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"b<|im_end|>\"}, "
                            "{\"role\": \"assistant\", \"content\": \"aa\"}]}";

START_TEST(conversations_follow_the_templates) {
    pd_tokenizer *t = tokenizer(false, chatml);
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_CHATML);
    pd_data *d = open_lines(t, hello, 100);
    expect_seq(pd_data_at(d, 0), 0, /* the user's <|im_end|> is text, not a marker */
               SEQ(IM_START, 'u', 's', 'e', 'r', '\n', 'b', '<', '|', 'i', 'm', '_', 'e', 'n', 'd',
                   '|', '>', IM_END, '\n', IM_START, 'a', 's', 's', 'i', 's', 't', 'a', 'n', 't',
                   '\n', 1000 + AA, 1000 + IM_END, '\n'));
    pd_data_close(d);
    d = open_lines(t, hello, 8); /* the oldest tokens give way */
    expect_seq(pd_data_at(d, 0), 0, SEQ('t', 'a', 'n', 't', '\n', 1000 + AA, 1000 + IM_END, '\n'));
    pd_data_close(d);
    pd_tokenizer_close(t);

    t = tokenizer(false, chatml_system);
    d = open_lines(
        t,
        "{\"messages\": [{\"role\": \"assistant\", \"content\": \"c\"}]}\n"
        "{\"messages\": [{\"role\": \"system\", \"content\": \"d\"}, {\"role\": \"assistant\", "
        "\"content\": \"c\"}]}",
        100);
    expect_seq(pd_data_at(d, 0), 0,
               SEQ(IM_START, 's', 'y', 's', 't', 'e', 'm', '\n', 'B', 'e', ' ', 'b', '.', IM_END,
                   '\n', IM_START, 'a', 's', 's', 'i', 's', 't', 'a', 'n', 't', '\n', 1000 + 'c',
                   1000 + IM_END, '\n'));
    expect_seq(pd_data_at(d, 1), 0,
               SEQ(IM_START, 's', 'y', 's', 't', 'e', 'm', '\n', 'd', IM_END, '\n', IM_START, 'a',
                   's', 's', 'i', 's', 't', 'a', 'n', 't', '\n', 1000 + 'c', 1000 + IM_END, '\n'));
    pd_data_close(d);
    pd_tokenizer_close(t);

    t = tokenizer(true, zephyr);
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_ZEPHYR);
    d = open_lines(t,
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, {\"role\": "
                   "\"assistant\", \"content\": "
                   "\"c\"}]}",
                   100);
    expect_seq(pd_data_at(d, 0), 0,
               SEQ(BOS, '<', '|', 'u', 's', 'e', 'r', '|', '>', '\n', 'b', EOS, '\n', '<', '|', 'a',
                   's', 's', 'i', 's', 't', 'a', 'n', 't', '|', '>', '\n', 1000 + 'c', 1000 + EOS,
                   '\n'));
    pd_data_close(d);
    pd_tokenizer_close(t);

    t = tokenizer(true, llama2);
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_LLAMA2);
    d = open_lines(t,
                   "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": "
                   "\"user\", \"content\": "
                   "\" b\\n\"}, {\"role\": \"assistant\", \"content\": \"c \"}, {\"role\": "
                   "\"user\", \"content\": "
                   "\"d\"}, {\"role\": \"assistant\", \"content\": \"e\"}]}",
                   100);
    expect_seq(pd_data_at(d, 0), 0,
               SEQ(BOS, '[', 'I', 'N', 'S', 'T', ']', ' ', '<', '<', 'S', 'Y', 'S', '>', '>', '\n',
                   's', '\n', '<', '<', '/', 'S', 'Y', 'S', '>', '>', '\n', '\n', 'b', ' ', '[',
                   '/', 'I', 'N', 'S', 'T', ']', 1000 + ' ', 1000 + 'c', 1000 + ' ', 1000 + EOS,
                   BOS, '[', 'I', 'N', 'S', 'T', ']', ' ', 'd', ' ', '[', '/', 'I', 'N', 'S', 'T',
                   ']', 1000 + ' ', 1000 + 'e', 1000 + ' ', 1000 + EOS));
    pd_data_close(d);
    pd_tokenizer_close(t);

    t = tokenizer(false, "{{ something else }}");
    ck_assert_int_eq(pd_tokenizer_chat(t), PD_CHAT_NONE);
    gw_write(path, hello, strlen(hello));
    ck_assert_int_eq(pd_data_open(path, t, &(pd_data_opts){.max_tokens = 100}, &d),
                     PD_EUNSUPPORTED);
    pd_tokenizer_close(t);
}
END_TEST

/* Each alone is refused with file, line and cause; with skip_bad its neighbours are unharmed. */
START_TEST(bad_lines_are_named_and_leave_nothing_behind) {
    static const char deep[] = "[[[[[[[[[[[[[[[[[[[[";
    const struct {
        const char *line, *says;
    } c[] = {
        {"{", "not JSON"},
        {"{\"text\": \"bc\"} x", "not JSON from byte 16"},
        {"{\"text\": \"b\\ud800c\"}", "not JSON"},
        {"[]", "not a JSON object"},
        {"7", "not a JSON object"},
        {"{}", "one of \"text\""},
        {"{\"text\": 7}", "\"text\" is not a string"},
        {"{\"text\": null}", "\"text\" is not a string"},
        {"{\"text\": \"\"}", "empty"},
        {"{\"text\": \"b\"}", "one token"},
        {"{\"text\": \"bc\", \"text\": \"bc\"}", "\"text\" stands twice"},
        {"{\"text\": \"bc\", \"prompt\": \"b\", \"completion\": \"c\"}", "one of \"text\""},
        {"{\"text\": \"b\\u0000c\"}", "NUL"},
        {"{\"te\xffxt\": \"bc\"}", "byte 5 of the line is not UTF-8"},
        {"{\"text\": \"b\xed\xa0\x80\"}", "not UTF-8"},
        {"{\"prompt\": \"b\"}", "either"},
        {"{\"prompt\": \"b\", \"completion\": \"c\", \"choices\": [\"b\", \"c\"]}", "either"},
        {"{\"prompt\": [], \"completion\": \"c\"}", "\"prompt\" is not a string"},
        {"{\"prompt\": \"b\", \"completion\": {}}", "\"completion\" is not a string"},
        {"{\"prompt\": \"\", \"completion\": \"c\"}", "prompt is empty"},
        {"{\"prompt\": \"b\", \"completion\": \"\"}", "completion is empty"},
        {"{\"prompt\": \"b\", \"completion\": \"bcdbcdbcdbcdbcdbcdbcd\"}", "does not fit"},
        {"{\"prompt\": \"b\", \"choices\": [], \"answer\": 0}", "2 to 1024"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\"], \"answer\": 0}", "2 to 1024"},
        {"{\"prompt\": \"b\", \"choices\": {\"x\": \"b\", \"y\": \"c\"}, \"answer\": 0}",
         "2 to 1024"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", 1], \"answer\": 0}", "a choice is not a string"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"\"], \"answer\": 0}", "a choice is empty"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\", \"b\"], \"answer\": 0}",
         "choices 0 and 2 are the same"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"]}", "\"answer\" is not the index"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"], \"answer\": 2}", "0 to 1"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"], \"answer\": -1}", "0 to 1"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"], \"answer\": 0.5}", "0 to 1"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"], \"answer\": 1e999}", "0 to 1"},
        {"{\"prompt\": \"b\", \"choices\": [\"b\", \"c\"], \"answer\": \"1\"}", "0 to 1"},
        {"{\"prompt\": \"\", \"choices\": [\"b\", \"cd\"], \"answer\": 1}", "prompt is empty"},
        {"{\"messages\": {}}", "not a list of messages"},
        {"{\"messages\": []}", "not a list of messages"},
        {"{\"messages\": [7]}", "\"role\" of a message"},
        {"{\"messages\": [{\"role\": \"user\"}]}", "\"content\" of a message"},
        {"{\"messages\": [{\"role\": \"judge\", \"content\": \"b\"}]}", "message 0 is not"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}",
         "no message of the assistant"},
        {deep, "not JSON"},
    };
    pd_tokenizer *t = tokenizer(false, chatml);
    pd_data_opts opts = {.max_tokens = 20};
    char file[512], where[64];
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        pd_data *d = NULL;
        snprintf(file, sizeof file, "{\"text\": \"bc\"}\n%s\n{\"text\": \"de\"}\n", c[i].line);
        gw_write(path, file, strlen(file));
        opts.skip_bad = false;
        ck_assert_msg(pd_data_open(path, t, &opts, &d) == PD_EFORMAT, "%s", c[i].line);
        snprintf(where, sizeof where, "%s:2: ", path);
        ck_assert_msg(strncmp(pd_fail_text(), where, strlen(where)) == 0, "%s", pd_fail_text());
        ck_assert_msg(strstr(pd_fail_text(), c[i].says) != NULL, "%s for %s", pd_fail_text(),
                      c[i].line);
        ck_assert_ptr_null(d);
        opts.skip_bad = true;
        ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_OK);
        ck_assert(pd_data_count(d) == 2 && pd_data_skipped(d) == 1);
        expect_seq(pd_data_at(d, 0), 0, SEQ('b', 1000 + 'c'));
        expect_seq(pd_data_at(d, 1), 0, SEQ('d', 1000 + 'e'));
        ck_assert_uint_eq(pd_data_at(d, 1)->line, 3);
        pd_data_close(d);
    }
    pd_tokenizer_close(t);
}
END_TEST

START_TEST(hostile_files_cost_little) {
    pd_tokenizer *t = tokenizer(false, NULL);
    pd_data *d = NULL;
    pd_data_opts opts = {.max_tokens = 64};
    size_t n = 100 << 20;
    char *big = malloc(n);
    memset(big, '[', n); /* one line of 100 MB */
    gw_write(path, big, n);
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "104857600 bytes"));
    gw_write(path, big, 1 << 20); /* a million brackets deep */
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EFORMAT);
    gw_write(path, "{\"text\": \"b\0c\"}", 15);
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "NUL"));
    free(big);
    gw_write(path, "\n\n", 2);
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(pd_fail_text(), "no record"));
    gw_write(path, "", 0);
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EFORMAT);
    ck_assert_int_eq(pd_data_open("/nonexistent/x.jsonl", t, &opts, &d), PD_ENOENT);
    opts.max_tokens = PD_WINDOW_MIN - 1;
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_EUSAGE);
    ck_assert_ptr_null(d);
    /* an escaped backslash before u0000 is not a NUL */
    gw_write(path, "{\"text\": \"\\\\u0000\"}", 19);
    opts.max_tokens = 64;
    ck_assert_int_eq(pd_data_open(path, t, &opts, &d), PD_OK);
    pd_data_close(d);
    pd_tokenizer_close(t);
}
END_TEST

static void add_tests(TCase *tc) {
    close(mkstemp(path));
    close(mkstemp(model_path));
    atexit(remove_files);
    tcase_add_test(tc, each_kind_of_record_scores_what_it_should);
    tcase_add_test(tc, bos_stands_where_the_file_asks_for_it);
    tcase_add_test(tc, a_long_text_becomes_several_examples);
    tcase_add_test(tc, a_long_prompt_is_cut_at_its_left);
    tcase_add_test(tc, conversations_follow_the_templates);
    tcase_add_test(tc, bad_lines_are_named_and_leave_nothing_behind);
    tcase_add_test(tc, hostile_files_cost_little);
}

PD_TEST_MAIN("data", 60)
