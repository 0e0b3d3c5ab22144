/* train.h - what the suites of the training side share: runs, bases and data made up on the spot,
 * and the small model of the tree.
 */
#ifndef PD_TRAIN_H
#define PD_TRAIN_H

#include "peerd/basis.h"
#include "peerd/fit.h"
#include "peerd/manifest.h"
#include "peerd/rng.h"
#include "test.h"

#include <string.h>

enum { ALL_TARGETS = (1 << PD_TARGETS) - 1 };

#define ck_ok(e) ck_assert_msg((e) == PD_OK, "%s", pd_fail_text())

static inline double signed_uniform(pd_rng *r) {
    return 2 * pd_rng_uniform(r) - 1;
}

/* The part of a manifest that a space and replay look at. */
static inline pd_manifest manifest_of(pd_space_kind kind, uint32_t rank, uint32_t targets,
                                      const pd_model_info *info) {
    pd_manifest m = {.space = kind,
                     .rank = rank,
                     .targets = targets,
                     .alpha = kind == PD_SPACE_LORA ? 2 * rank : 0,
                     .unit_bits = 20,
                     .eps = UINT64_C(1) << 33,   /* 2^-7 */
                     .scale = UINT64_C(1) << 32, /* 2^-8 */
                     .lr = UINT64_C(1) << 30};   /* 2^-10 */
    m.n_coords = pd_space_size(&m, info);
    memset(m.seed, 7, sizeof m.seed);
    return m;
}

/* A basis, from layer `first` on, of random vectors of about unit length, rounded as the file holds
 * them, and random scales. */
static inline pd_basis *random_basis_of(const pd_model_info *info, uint32_t first, uint32_t targets,
                                        uint32_t r1, uint32_t r2, uint64_t from) {
    pd_basis *b = NULL;
    pd_rng rng = {from};
    ck_ok(pd_basis_new(info, first, targets, r1, r2, &b));
    for (size_t k = 0; k < (size_t)info->n_layers * PD_TARGETS; k++) {
        pd_basis_matrix *x = &b->at[k];
        struct {
            float *p;
            uint32_t count, n;
        } part[4] = {
            {x->u1, r1, x->out}, {x->v1, r1, x->in}, {x->u2, r2, x->out}, {x->v2, r2, x->in}};
        for (int i = 0; x->out && i < 4; i++)
            for (uint32_t j = 0; j < part[i].count; j++) {
                float *v = part[i].p + (size_t)j * part[i].n;
                for (uint32_t l = 0; l < part[i].n; l++)
                    v[l] = (float)(signed_uniform(&rng) * sqrt(3.0 / part[i].n));
                pd_basis_round(v, part[i].n);
            }
        for (uint32_t i = 0; x->out && i < r1 * r1; i++)
            x->c1[i] = (float)(0.3 * signed_uniform(&rng));
        for (uint32_t i = 0; x->out && i < r2 * r2; i++)
            x->d2[i] = (float)(1 + 0.5 * signed_uniform(&rng));
    }
    return b;
}

static inline pd_basis *random_basis(const pd_model_info *info, uint32_t targets, uint32_t r1,
                                     uint32_t r2, uint64_t from) {
    return random_basis_of(info, 0, targets, r1, r2, from);
}

/* A file of the given content under /tmp; unlink it. */
static inline const char *temp_file(const void *p, size_t n) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/pd-train-XXXXXX");
    int fd = mkstemp(path);
    ck_assert(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    close(fd);
    return path;
}

/* The model in the tree (2.4 M parameters, 4 layers) with its tokenizer. */
typedef struct house {
    pd_gguf *file;
    pd_tokenizer *tokenizer;
    pd_model *model;
} house;

static inline house house_open(bool backward) {
    house h = {0};
    pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1, .backward = backward};
    ck_ok(pd_gguf_open(pd_test_path("examples/models/house-2m.gguf"), &h.file));
    ck_ok(pd_tokenizer_open(h.file, &h.tokenizer));
    ck_ok(pd_model_open(h.file, &o, &h.model));
    return h;
}

static inline void house_close(house *h) {
    pd_model_close(h->model);
    pd_tokenizer_close(h->tokenizer);
    pd_gguf_close(h->file);
}

/* Records of a made-up choice: what kind of software the nouns of a description tell of.  Few words
 * in many combinations, so that a small model can learn the task in a few steps.
 */
static inline pd_data *choice_data(const house *h, uint64_t from, uint32_t n) {
    static const char *const noun[2][6] = {
        {"game", "puzzle", "arcade shooter", "card game", "chess engine", "dungeon"},
        {"compiler", "library", "debugger", "parser", "linker", "profiler"}};
    static const char *const form[4] = {"This package contains a %s", "A small %s for the desktop",
                                        "A fast %s with many options",
                                        "This is a simple %s written in C"};
    char text[65536];
    size_t at = 0;
    pd_rng rng = {from};
    for (uint32_t i = 0; i < n; i++) {
        char what[96];
        unsigned answer = pd_rng_below(&rng, 2);
        snprintf(what, sizeof what, form[pd_rng_below(&rng, 4)],
                 noun[answer][pd_rng_below(&rng, 6)]);
        at += (size_t)snprintf(text + at, sizeof text - at,
                               "{\"prompt\": \"%s. It is for\", \"choices\": [\" play\", \" "
                               "development\"], \"answer\": %u}\n",
                               what, answer);
        ck_assert(at < sizeof text - 256);
    }
    const char *path = temp_file(text, at);
    pd_data *d = NULL;
    pd_data_opts o = {.max_tokens = 128};
    ck_ok(pd_data_open(path, h->tokenizer, &o, &d));
    unlink(path);
    return d;
}

#endif
