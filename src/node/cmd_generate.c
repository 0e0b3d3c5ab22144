/* cmd_generate.c - peerd generate: continue a text, token by token. */
#include "cmd.h"
#include "config.h"
#include "peerd/flags.h"
#include "peerd/identity.h"
#include "peerd/rng.h"
#include "subject.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const pd_command_help help = {
    .usage = "peerd generate MODEL|DIR --prompt TEXT",
    .what = "Continue TEXT with a model, or with a node's model as it stands (DIR, the node not\n"
            "running), and write the continuation as it is made, up to the end-of-text token.  "
            "Texts of\n"
            "special tokens in TEXT become those tokens.",
    .example = "peerd generate smollm2.gguf --prompt 'Gravity is' --max 40 --seed 1"};

typedef struct generate {
    const char *prompt, *compute_name;
    uint32_t max, threads;
    double temperature, top_p;
    uint64_t seed;
    pd_compute compute;
} generate;

typedef struct candidate {
    float p;
    uint32_t id;
} candidate;

static int likelier(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Draw from softmax(logits / temperature), cut to the likeliest tokens that hold `top_p` of it
 * [Holtzman et al. 2020, 1904.09751].  c (vocab) is scratch.
 */
static uint32_t draw(const generate *o, pd_rng *rng, const float *logits, uint32_t vocab,
                     candidate *c) {
    uint32_t best = 0, n = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    if (o->temperature <= 0.0)
        return best;
    double sum = 0.0, held = 0.0;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)(logits[i] - logits[best]) / o->temperature);
    /* Tokens below (1 - top_p) / V hold less than 1 - top_p together, so none of them is in the
     * cut. */
    double least = (1.0 - o->top_p) / vocab;
    for (uint32_t i = 0; i < vocab; i++) {
        double p = exp((double)(logits[i] - logits[best]) / o->temperature) / sum;
        if (p >= least)
            c[n++] = (candidate){(float)p, i};
    }
    qsort(c, n, sizeof *c, likelier);
    uint32_t cut = 0;
    while (cut < n && held < o->top_p)
        held += c[cut++].p;
    double u = pd_rng_uniform(rng) * held;
    for (uint32_t i = 0; i < cut; i++) {
        u -= c[i].p;
        if (u < 0.0)
            return c[i].id;
    }
    return cut ? c[cut - 1].id : best;
}

/* Token ids of the prompt, with the leading token that the model asks for. */
static pd_err read_prompt(const pd_tokenizer *t, const char *text, uint32_t **ids, size_t *n) {
    uint32_t *plain;
    size_t count, lead = pd_tokenizer_adds_bos(t) && pd_tokenizer_bos(t) != UINT32_MAX;
    pd_err e = pd_tokenizer_encode(t, text, strlen(text), true, &plain, &count);
    if (e)
        return e;
    uint32_t *all = malloc((count + 2) * sizeof *all);
    if (!all) {
        free(plain);
        return pd_fail(PD_ENOMEM, "no memory for the prompt");
    }
    if (lead)
        all[0] = pd_tokenizer_bos(t);
    memcpy(all + lead, plain, count * sizeof *all);
    free(plain);
    if (count + lead == 0) {
        free(all);
        return pd_fail(PD_EUSAGE, "the prompt is empty, and this model has no token to begin with");
    }
    *ids = all;
    *n = count + lead;
    return PD_OK;
}

static pd_err stream(const generate *o, const pd_subject *s, const uint32_t *ids, size_t n,
                     float *logits, candidate *scratch) {
    const pd_model_info *info = pd_model_info_of(s->model);
    pd_rng rng = {o->seed};
    pd_session *session;
    pd_err e = pd_session_open(s->model, (uint32_t)n + o->max, &session);
    if (e)
        return e;
    e = pd_session_push(session, s->adapter, ids, (uint32_t)n, logits);
    for (uint32_t i = 0; i < o->max && !e; i++) {
        uint32_t id = draw(o, &rng, logits, info->vocab, scratch);
        if (id == pd_tokenizer_eos(s->tokenizer) || id >= pd_tokenizer_vocab(s->tokenizer))
            break;
        size_t len;
        const char *piece = pd_tokenizer_piece(s->tokenizer, id, &len);
        if (fwrite(piece, 1, len, stdout) != len || fflush(stdout) != 0)
            e = pd_fail(PD_EIO, "cannot write the text");
        if (!e && i + 1 < o->max)
            e = pd_session_push(session, s->adapter, &id, 1, logits);
    }
    putchar('\n');
    pd_session_close(session);
    return e;
}

static pd_err generate_text(const generate *o, const char *model) {
    pd_model_opts mo = {.compute = o->compute, .threads = o->threads};
    pd_subject s = {0};
    uint32_t *ids = NULL;
    size_t n = 0;
    pd_err e = pd_subject_open(model, &mo, &s);
    if (e)
        return e;
    const pd_model_info *info = pd_model_info_of(s.model);
    float *logits = malloc(info->vocab * sizeof *logits);
    candidate *scratch = malloc(info->vocab * sizeof *scratch);
    if (!logits || !scratch)
        e = pd_fail(PD_ENOMEM, "no memory for %u logits", info->vocab);
    if (!e)
        e = read_prompt(s.tokenizer, o->prompt, &ids, &n);
    if (!e && n + o->max > info->context)
        e = pd_fail(
            PD_EUSAGE,
            "%zu tokens of prompt and %u more exceed the model's context of %u (lower --max)", n,
            o->max, info->context);
    if (!e)
        e = stream(o, &s, ids, n, logits, scratch);
    free(ids);
    free(logits);
    free(scratch);
    pd_subject_close(&s);
    return e;
}

int pd_cmd_generate(int argc, char **argv) {
    generate o = {.max = 128, .temperature = 0.8, .top_p = 0.95, .compute_name = "auto"};
    o.seed = pd_random64();
    const pd_flag flags[] = {
        {"prompt", 0, PD_FLAG_TEXT, &o.prompt, 0, 0, "TEXT", "what to continue"},
        {"max", 0, PD_FLAG_U32, &o.max, 1, 1 << 20, "N", "tokens at most (default 128)"},
        {"temperature", 0, PD_FLAG_REAL, &o.temperature, 0, 100, "T",
         "0: the likeliest token; 1: the model's own distribution (default 0.8)"},
        {"top-p", 0, PD_FLAG_REAL, &o.top_p, 0, 1, "P",
         "draw from the likeliest tokens that hold this share (default 0.95)"},
        {"seed", 0, PD_FLAG_U64, &o.seed, 0, 0, "S", "same seed, same text (default: fresh)"},
        {"compute", 0, PD_FLAG_TEXT, &o.compute_name, 0, 0, "TYPE", "auto, f32 or bf16 products"},
        {"threads", 0, PD_FLAG_U32, &o.threads, 1, 1024, "N", "default: as many as cores"},
        {0}};
    const char *model;
    size_t n;
    bool asked;
    pd_err e = pd_flags_parse(argc, argv, flags, &model, 1, 1, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_compute_parse(o.compute_name, &o.compute);
    if (!e && !o.prompt)
        e = pd_fail(PD_EUSAGE, "generate needs --prompt TEXT (see: peerd generate --help)");
    if (!e)
        e = generate_text(&o, model);
    if (e)
        fprintf(stderr, "peerd: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
