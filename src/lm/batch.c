/* batch.c - examples laid end to end without padding, with lists of what is scored. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

pd_err pd_batch_open(uint32_t max_tokens, uint32_t max_examples, pd_batch **out) {
    pd_batch *b = calloc(1, sizeof *b);
    if (!b)
        return pd_fail(PD_ENOMEM, "no memory for a batch");
    size_t t = max_tokens ? max_tokens : 1, n = max_examples ? max_examples : 1;
    b->max_tokens = max_tokens;
    b->max_items = max_examples;
    b->max_choices =
        max_tokens + PD_BATCH_CHOICES * (max_examples < max_tokens ? max_examples : max_tokens);
    b->ids = calloc(t, sizeof *b->ids);
    b->pos = calloc(t, sizeof *b->pos);
    b->seqs = calloc(t, sizeof *b->seqs);
    b->from = calloc(t, sizeof *b->from);
    b->target = calloc(t, sizeof *b->target);
    b->items = calloc(n, sizeof *b->items);
    b->choices = calloc(b->max_choices + (size_t)1, sizeof *b->choices);
    b->single_row = calloc(n, sizeof *b->single_row);
    if (!b->ids || !b->pos || !b->seqs || !b->from || !b->target || !b->items || !b->choices ||
        !b->single_row) {
        pd_batch_close(b);
        return pd_fail(PD_ENOMEM, "no memory for a batch of %u tokens", max_tokens);
    }
    *out = b;
    return PD_OK;
}

void pd_batch_close(pd_batch *b) {
    if (!b)
        return;
    free(b->ids);
    free(b->pos);
    free(b->seqs);
    free(b->from);
    free(b->target);
    free(b->items);
    free(b->choices);
    free(b->single_row);
    free(b);
}

void pd_batch_clear(pd_batch *b) {
    b->n_tokens = b->n_seqs = b->n_scored = b->n_items = b->n_choices = b->n_singles = b->n_units =
        0;
    b->edition++;
}

/* Append one sequence; returns how many of its tokens are scored.  A first token has nothing before
 * it to be predicted from. */
static uint32_t add_seq(pd_batch *b, const uint32_t *ids, const uint8_t *scored, uint32_t len) {
    uint32_t row = b->n_tokens, before = b->n_scored;
    for (uint32_t i = 0; i < len; i++) {
        b->ids[row + i] = ids[i];
        b->pos[row + i] = i;
        if (scored && i > 0 && scored[i]) {
            b->from[b->n_scored] = row + i - 1;
            b->target[b->n_scored++] = ids[i];
        }
    }
    b->seqs[b->n_seqs++] = (pd_seq){row, len};
    b->n_tokens += len;
    return b->n_scored - before;
}

bool pd_batch_add(pd_batch *b, const pd_example *e) {
    if (b->n_items == b->max_items || e->n_tokens > b->max_tokens - b->n_tokens)
        return false;
    bool choice = e->kind == PD_EXAMPLE_CHOICE;
    if (choice && e->n_choices > b->max_choices - b->n_choices)
        return false;
    pd_item it = {
        .kind = e->kind, .scored = b->n_scored, .choice = b->n_choices, .single = UINT32_MAX};
    if (choice && e->choice_ids) {
        add_seq(b, e->ids, NULL, e->seq_len[0]);
        it.single = b->n_singles;
        b->single_row[b->n_singles++] = b->n_tokens - 1;
        memcpy(b->choices + b->n_choices, e->choice_ids, e->n_choices * sizeof *e->choice_ids);
    } else {
        uint32_t at = 0;
        for (uint32_t s = 0; s < e->n_seqs; s++) {
            uint32_t n = add_seq(b, e->ids + at, e->scored + at, e->seq_len[s]);
            at += e->seq_len[s];
            if (choice)
                b->choices[b->n_choices + s] = n;
        }
    }
    it.n_scored = b->n_scored - it.scored;
    if (choice) {
        it.n_choices = e->n_choices;
        it.answer = e->answer;
        b->n_choices += e->n_choices;
    }
    b->n_units += choice ? 1 : it.n_scored;
    b->items[b->n_items++] = it;
    b->edition++;
    return true;
}

uint32_t pd_batch_tokens(const pd_batch *b) {
    return b->n_tokens;
}
uint32_t pd_batch_examples(const pd_batch *b) {
    return b->n_items;
}
uint32_t pd_batch_units(const pd_batch *b) {
    return b->n_units;
}
