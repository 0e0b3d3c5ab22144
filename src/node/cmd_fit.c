/* cmd_fit.c - peerd fit: first-order Adam in a run's space from its start adapter, on files of any
 * sites; no bytes, nothing stored.  The honest ceiling that a run is set beside.
 */
#include "cmd.h"
#include "peerd/flags.h"
#include "peerd/log.h"
#include "site.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const pd_command_help help = {
    .usage = "peerd fit DIR --data FILE [--data FILE ...] --eval FILE",
    .what = "Train first-order (Adam) in the node's space, from its start adapter, on the pooled "
            "files, and print the loss\n"
            "of the --eval files. Nothing is kept: this is the ceiling to compare a run with.",
    .example =
        "peerd fit ./site-a --data a.jsonl --data b.jsonl --eval test.jsonl --steps 30 --json"};

typedef struct fit {
    const char *dir;
    pd_flag_list data, eval;
    uint32_t steps, batch, threads;
    double lr;
    uint64_t seed;
    bool json;
    pd_site site;
    pd_data *train[PD_FLAG_LIST_MAX], *test[PD_FLAG_LIST_MAX];
    pd_bench bench;
    pd_view *view;
    pd_adam adam;
    float *sum;
} fit;

static pd_err open_files(fit *f, const pd_flag_list *names, pd_data **out) {
    uint32_t context = pd_model_info_of(f->site.model)->context;
    pd_data_opts opts = {.max_tokens = f->site.config.batch_tokens};
    if (context < opts.max_tokens)
        opts.max_tokens = context;
    for (uint32_t i = 0; i < names->n; i++) {
        pd_err e = pd_data_open(names->at[i], f->site.tokenizer, &opts, &out[i]);
        if (e)
            return e;
    }
    return PD_OK;
}

/* One step: the mean of the files' gradients, each from `batch` random records, so that files of
 * any size weigh alike. */
static pd_err step(fit *f, pd_rng *rng, double *loss) {
    uint64_t d = pd_space_coords(f->site.space);
    uint32_t *pick = malloc(f->batch * sizeof *pick);
    if (!pick)
        return pd_fail(PD_ENOMEM, "no memory for a batch");
    pd_err e = PD_OK;
    memset(f->sum, 0, d * sizeof *f->sum);
    *loss = 0;
    pd_view_set_float(f->view, f->adam.c);
    for (uint32_t k = 0; k < f->data.n && !e; k++) {
        for (uint32_t i = 0; i < f->batch; i++)
            pick[i] = pd_rng_below(rng, pd_data_count(f->train[k]));
        pd_subset some = {f->train[k], pick, f->batch};
        pd_loss l;
        e = pd_space_gradient(&f->bench, &some, f->view, d, f->adam.grad, &l);
        for (uint64_t i = 0; i < d && !e; i++)
            f->sum[i] += f->adam.grad[i] / (float)f->data.n;
        *loss += e ? 0 : pd_loss_mean(&l) / f->data.n;
    }
    free(pick);
    if (!e && !isfinite(*loss))
        e = pd_fail(PD_ENUMERIC, "the loss is not finite; a smaller --lr may help");
    if (!e) {
        memcpy(f->adam.grad, f->sum, d * sizeof *f->sum);
        pd_adam_step(&f->adam);
    }
    return e;
}

static pd_err report(fit *f) {
    pd_view_set_float(f->view, f->adam.c);
    if (f->json)
        printf("{\"steps\": %u, \"files\": [", f->steps);
    for (uint32_t i = 0; i < f->eval.n; i++) {
        pd_loss l;
        pd_subset all = pd_subset_all(f->test[i]);
        pd_err e = pd_evaluate(&f->bench, &all, pd_view_adapter(f->view), &l);
        if (e)
            return e;
        double accuracy = l.choices ? (double)l.correct / (double)l.choices : NAN;
        char text[32] = "null";
        if (l.choices)
            snprintf(text, sizeof text, "%.6f", accuracy);
        if (f->json)
            printf("%s{\"nll\": %.6f, \"accuracy\": %s}", i ? ", " : "", pd_loss_mean(&l), text);
        else
            printf("%s: loss %.4f%s%s after %u steps\n", f->eval.at[i], pd_loss_mean(&l),
                   l.choices ? ", accuracy " : "", l.choices ? text : "", f->steps);
    }
    if (f->json)
        printf("]}\n");
    return PD_OK;
}

static pd_err train(fit *f) {
    pd_site_opts opts = {.backward = true, .threads = f->threads};
    pd_err e = pd_site_open(f->dir, PD_SITE_MODEL, &opts, &f->site);
    if (!e)
        e = open_files(f, &f->data, f->train);
    if (!e)
        e = open_files(f, &f->eval, f->test);
    if (!e)
        e = pd_bench_open(f->site.model, f->site.config.batch_tokens, 1, true, &f->bench);
    if (!e)
        e = pd_view_open(f->site.space, &f->view);
    if (!e)
        e = pd_adam_open(pd_space_coords(f->site.space), (float)f->lr, &f->adam);
    if (!e && !(f->sum = malloc(f->adam.d * sizeof *f->sum)))
        e = pd_fail(PD_ENOMEM, "no memory for a gradient");
    pd_rng rng = {f->seed};
    for (uint32_t s = 0; s < f->steps && !e; s++) {
        double loss = 0;
        e = step(f, &rng, &loss);
        pd_progress(false, "step %u of %u, loss %.4f", s + 1, f->steps, loss);
    }
    return e ? e : report(f);
}

int pd_cmd_fit(int argc, char **argv) {
    fit f = {.steps = 30, .batch = 16, .lr = 5e-3, .seed = 1, .threads = UINT32_MAX};
    const pd_flag flags[] = {
        {"data", 0, PD_FLAG_LIST, &f.data, 0, 0, "FILE",
         "records to train on; again for each site"},
        {"eval", 0, PD_FLAG_LIST, &f.eval, 0, 0, "FILE",
         "records to judge by; again for each file"},
        {"steps", 0, PD_FLAG_U32, &f.steps, 1, 100000, "N", "of Adam (default 30)"},
        {"lr", 0, PD_FLAG_REAL, &f.lr, 1e-9, 10, "X", "its rate (default 0.005)"},
        {"batch", 0, PD_FLAG_U32, &f.batch, 1, 4096, "N", "records a step and file (default 16)"},
        {"seed", 0, PD_FLAG_U64, &f.seed, 0, 9007199254740992.0, "N", "of the batches (default 1)"},
        {"threads", 0, PD_FLAG_U32, &f.threads, 0, 1024, "N", "cores to use"},
        {"json", 0, PD_FLAG_SWITCH, &f.json, 0, 0, NULL, "for scripts"},
        {.name = NULL}};
    size_t n;
    bool asked;
    pd_err e = pd_flags_parse(argc, argv, flags, &f.dir, 1, 1, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e && (!f.data.n || !f.eval.n))
        e = pd_fail(PD_EUSAGE, "--data and --eval are needed");
    if (!e)
        e = train(&f);
    free(f.sum);
    pd_adam_close(&f.adam);
    pd_view_close(f.view);
    pd_bench_close(&f.bench);
    for (uint32_t i = 0; i < PD_FLAG_LIST_MAX; i++) {
        pd_data_close(f.train[i]);
        pd_data_close(f.test[i]);
    }
    pd_site_close(&f.site);
    if (e)
        fprintf(stderr, "peerd fit: %s\n", pd_fail_text());
    return e ? pd_err_exit(e) : 0;
}
