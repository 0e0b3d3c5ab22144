/* learn.h - what the parts of the bench `learn` share; see learn.c. */
#ifndef PD_LEARN_H
#define PD_LEARN_H

#include "peerd/calibrate.h"
#include "peerd/probe.h"
#include "peerd/project.h"

enum { SITES_MAX = 16 };

typedef struct options {
    const char *model, *calibrate, *test, *basis;
    uint32_t rank, batch, every, groups, propose, lag, bases;
    uint64_t bytes, seed;
    double lr, lr_min, eps, clip, whiten;
    const char *warm, *schedule;
    bool alone, capture, f32;
    /* bytes from gradients */
    bool project;
    uint32_t probes, local_steps;
    double feedback;
    /* first-order */
    uint32_t adam, lora, first, first_lora, climb;
    double adam_lr, lora_lr, first_lr, first_lora_lr;
} options;

/* A run without a network: sites in turn, everything replayed at once. */
typedef struct learn {
    options o;
    pd_gguf *file;
    pd_tokenizer *tokenizer;
    pd_model *model;
    pd_data *calibration, *test, *site[SITES_MAX];
    uint32_t n_sites;
    pd_bench two, one; /* two sides for probes, one with reverse mode */
    pd_basis *basis;
    pd_manifest manifest;
    pd_space *space;
    pd_prober prober;
    pd_projector projector;
    uint64_t read;  /* records that went through the model for the bytes of this swarm */
    double seconds; /* of processor time that they took */
} learn;

double processor_s(void);
/* Ends the program with the text of an error. */
void check(pd_err e);
/* A line of the table: loss and accuracy of the test set under an adapter. */
void show(learn *b, const char *what, uint64_t n, const pd_adapter *a);
/* From the basis to everything over it. */
void open_space(learn *b);
void choose_constants(learn *b);

/* learn_swarm.c: sites [from, from + n) in turn, `bytes` records in all, in as many bases as asked.
 */
void swarm(learn *b, const char *name, uint32_t from, uint32_t n, uint64_t bytes);
/* learn_first.c: Adam without bytes. */
void first_order(learn *b);

#endif
