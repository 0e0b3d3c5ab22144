/* cmd_eval.c - peerd eval: the mean loss of a model over a file, and how fast it was had. */
#include "cmd.h"
#include "config.h"
#include "peerd/file.h"
#include "peerd/flags.h"
#include "peerd/log.h"
#include "subject.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const pd_command_help help = {
    .usage = "peerd eval MODEL|DIR --data FILE",
    .what = "Mean loss of a model, or of a node's model as it stands (DIR, the node not running), "
            "over records,\n"
            "one a line of FILE, each of one of these forms:\n"
            "  {\"text\": T}   {\"prompt\": P, \"completion\": C}\n"
            "  {\"messages\": [{\"role\": R, \"content\": C}, ...]}\n"
            "  {\"prompt\": P, \"choices\": [C, ...], \"answer\": index}",
    .example = "peerd eval smollm2.gguf --data reviews.jsonl --json"};

enum { WINDOW_MAX = 2048 }; /* tokens of context a text is cut into, if the model's own is longer */

typedef struct eval {
    const char *data, *compute_name;
    bool json, skip_bad;
    uint32_t threads, batch;
    pd_compute compute;
} eval;

typedef struct result {
    pd_loss loss;
    uint64_t tokens;
    double seconds;
    size_t records, skipped;
    const pd_model_info *info;
} result;

static void print_text(const result *r) {
    double mean = pd_loss_mean(&r->loss);
    double accuracy = r->loss.choices ? (double)r->loss.correct / (double)r->loss.choices : 0.0;
    uint64_t units = r->loss.units, choices = r->loss.choices;
    printf("%zu records, %" PRIu64 " tokens: ", r->records, r->tokens);
    if (choices == 0)
        printf("mean NLL %.4f over %" PRIu64 " tokens scored, perplexity %.3f\n", mean, units,
               exp(mean));
    else if (choices == units)
        printf("loss %.4f, accuracy %.4f of %" PRIu64 " choices\n", mean, accuracy, choices);
    else
        printf("loss %.4f over %" PRIu64 " tokens scored and %" PRIu64 " choices, accuracy %.4f\n",
               mean, units - choices, choices, accuracy);
    if (r->skipped)
        printf("%zu bad lines passed over\n", r->skipped);
    printf("%.1f tokens/s (%s)\n", (double)r->tokens / r->seconds,
           pd_compute_name(r->info->compute));
}

static void print_json(const result *r) {
    double mean = pd_loss_mean(&r->loss);
    printf("{\"records\": %zu, \"skipped\": %zu, \"tokens\": %" PRIu64 ", \"scored\": %" PRIu64
           ", \"nll\": %.6f",
           r->records, r->skipped, r->tokens, r->loss.units, mean);
    if (r->loss.choices == 0 && exp(mean) < INFINITY)
        printf(", \"perplexity\": %.6g", exp(mean));
    if (r->loss.choices)
        printf(", \"accuracy\": %.6f", (double)r->loss.correct / (double)r->loss.choices);
    printf(", \"tokens_per_s\": %.1f, \"seconds\": %.3f, \"compute\": \"%s\"}\n",
           (double)r->tokens / r->seconds, r->seconds, pd_compute_name(r->info->compute));
}

static void add_loss(pd_loss *sum, const pd_loss *l) {
    sum->sum += l->sum;
    sum->units += l->units;
    sum->choices += l->choices;
    sum->correct += l->correct;
}

/* All records, batch by batch. */
static void run(const pd_subject *s, const pd_data *d, pd_batch *b, pd_work *w, result *r) {
    size_t n = pd_data_count(d), next = 0;
    uint64_t start = pd_clock_us();
    while (next < n) {
        pd_loss l;
        pd_batch_clear(b);
        while (next < n && pd_batch_add(b, pd_data_at(d, next)))
            next++;
        pd_model_forward(s->model, w, b, &s->adapter, 1, &l, NULL);
        add_loss(&r->loss, &l);
        r->tokens += pd_batch_tokens(b);
        r->seconds = (double)(pd_clock_us() - start) * 1e-6;
        pd_progress(next == n, "%zu of %zu records, loss %.4f, %.0f tokens/s", next, n,
                    pd_loss_mean(&r->loss), (double)r->tokens / r->seconds);
    }
    r->records = n;
    r->skipped = pd_data_skipped(d);
}

/* Size batch and work so that the largest record fits, and run. */
static pd_err evaluate(const eval *o, const pd_subject *s, const pd_data *d, result *r) {
    uint32_t tokens = o->batch;
    for (size_t i = 0; i < pd_data_count(d); i++)
        if (pd_data_at(d, i)->n_tokens > tokens)
            tokens = pd_data_at(d, i)->n_tokens;
    pd_batch *b = NULL;
    pd_work *w = NULL;
    pd_err e = pd_batch_open(tokens, tokens, &b);
    if (!e)
        e = pd_work_open(s->model, tokens, 1, false, &w);
    if (!e)
        run(s, d, b, w, r);
    pd_batch_close(b);
    pd_work_close(w);
    if (!e && r->loss.units == 0)
        e = pd_fail(PD_EFORMAT, "%s: no token carries loss", o->data);
    if (!e && !isfinite(r->loss.sum))
        e = pd_fail(PD_ENUMERIC,
                    "the loss is not a finite number: model and data do not go together");
    return e;
}

static pd_err eval_model(const eval *o, const char *model) {
    pd_model_opts mo = {.compute = o->compute, .threads = o->threads};
    pd_subject s = {0};
    pd_data *d = NULL;
    pd_err e = pd_subject_open(model, &mo, &s);
    if (e)
        return e;
    result r = {.info = pd_model_info_of(s.model)};
    pd_data_opts po = {.max_tokens = r.info->context < WINDOW_MAX ? r.info->context : WINDOW_MAX,
                       .skip_bad = o->skip_bad};
    e = pd_data_open(o->data, s.tokenizer, &po, &d);
    if (!e)
        e = evaluate(o, &s, d, &r);
    if (!e)
        (o->json ? print_json : print_text)(&r);
    pd_data_close(d);
    pd_subject_close(&s);
    return e;
}

int pd_cmd_eval(int argc, char **argv) {
    eval o = {.batch = 1024, .compute_name = "auto"};
    const pd_flag flags[] = {
        {"data", 0, PD_FLAG_TEXT, &o.data, 0, 0, "FILE", "the records"},
        {"json", 0, PD_FLAG_SWITCH, &o.json, 0, 0, NULL, "one JSON object instead of text"},
        {"compute", 0, PD_FLAG_TEXT, &o.compute_name, 0, 0, "TYPE", "auto, f32 or bf16 products"},
        {"threads", 0, PD_FLAG_U32, &o.threads, 1, 1024, "N", "default: as many as cores"},
        {"batch", 0, PD_FLAG_U32, &o.batch, 1, 1 << 20, "TOKENS", "at a time (default 1024)"},
        {"skip-bad", 0, PD_FLAG_SWITCH, &o.skip_bad, 0, 0, NULL, "count bad lines and go on"},
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
    if (!e && !o.data)
        e = pd_fail(PD_EUSAGE, "eval needs --data FILE (see: peerd eval --help)");
    if (!e)
        e = eval_model(&o, model);
    if (e)
        fprintf(stderr, "peerd: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
