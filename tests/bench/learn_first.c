/* learn_first.c - first-order Adam without bytes, in the run's space or as LoRA: the ceilings of
 * learn.c. */
#include "learn.h"

#include <stdlib.h>
#include <string.h>

enum { LORA_RANK = 8, LORA_ALPHA = 16 };

typedef struct ceiling {
    const char *name;
    const pd_space *space;
    pd_data *const *data;
    uint32_t n, batch; /* batch 0: all records, every time */
    uint32_t steps;
    double lr;
} ceiling;

/* The mean of the data sets' gradients, each from `batch` random records. */
static void gradient(learn *b, const ceiling *c, const pd_view *view, pd_rng *rng, float *part,
                     float *sum) {
    uint64_t d = pd_space_coords(c->space);
    memset(sum, 0, d * sizeof *sum);
    for (uint32_t s = 0; s < c->n; s++) {
        uint32_t pick[64];
        for (uint32_t i = 0; i < c->batch; i++)
            pick[i] = pd_rng_below(rng, pd_data_count(c->data[s]));
        pd_subset some =
            c->batch ? (pd_subset){c->data[s], pick, c->batch} : pd_subset_all(c->data[s]);
        pd_loss l;
        check(pd_space_gradient(&b->one, &some, view, d, part, &l));
        for (uint64_t i = 0; i < d; i++)
            sum[i] += part[i] / (float)c->n;
        b->read += some.n;
    }
}

static void climb(learn *b, const ceiling *c) {
    uint64_t d = pd_space_coords(c->space);
    pd_adam adam;
    pd_view *view;
    check(pd_adam_open(d, (float)c->lr, &adam));
    check(pd_view_open(c->space, &view));
    pd_rng rng = {b->o.seed + 5};
    float *part = malloc(d * sizeof *part);
    uint32_t every = c->batch ? b->o.climb : (b->o.climb + 4) / 5;
    b->read = 0;
    b->seconds = 0;
    for (uint32_t step = 0; step <= c->steps; step++) {
        pd_view_set_float(view, adam.c);
        if (step && step % every == 0)
            show(b, c->name, step, pd_view_adapter(view));
        if (step == c->steps)
            break;
        double began = processor_s();
        gradient(b, c, view, &rng, part, adam.grad);
        pd_adam_step(&adam);
        b->seconds += processor_s() - began;
    }
    free(part);
    pd_view_close(view);
    pd_adam_close(&adam);
}

void first_order(learn *b) {
    const pd_model_info *info = pd_model_info_of(b->model);
    uint32_t targets = pd_model_targets(info);
    pd_space *lora;
    pd_manifest m = {.space = PD_SPACE_LORA,
                     .rank = LORA_RANK,
                     .alpha = LORA_ALPHA,
                     .targets = targets,
                     .unit_bits = 26};
    m.n_coords = pd_space_size(&m, info);
    memcpy(m.seed, &b->o.seed, sizeof b->o.seed);
    check(pd_space_open(&m, info, NULL, &lora));
    const ceiling all[] = {
        {"pooled, LoRA r = 8", lora, b->site, b->n_sites, b->o.batch, b->o.lora, b->o.lora_lr},
        {"pooled, same space", b->space, b->site, b->n_sites, b->o.batch, b->o.adam, b->o.adam_lr},
        {"public text, LoRA", lora, &b->calibration, 1, 0, b->o.first_lora, b->o.first_lora_lr},
        {"public text, same space", b->space, &b->calibration, 1, 0, b->o.first, b->o.first_lr},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].steps)
            climb(b, &all[i]);
    pd_space_close(lora);
}
