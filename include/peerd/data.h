/* data.h - a site's records: JSON lines to examples, i.e. token sequences with what is scored in them.
 *
 *   DATA > TOKENS > loss pair > byte > ledger > gossip > replay > weights
 *
 * One record a line:  {"text": T}   {"prompt": P, "completion": C}   {"messages": [{"role": R, "content": C}, ...]}
 *                     {"prompt": P, "choices": [C, ...], "answer": index}
 * A prompt and its continuation are tokenised separately and joined; BOS stands before everything where the model's
 * file asks for it.  The names of control tokens in text, prompts, completions and choices become those tokens; in
 * messages they do not, so that nobody's words can end a turn.  Scored are: of a text every token but the first, the
 * completion, the assistant's contents with the token that ends each of them.
 *
 * A bad line is an error that names file:line and the cause; it is skipped (and counted) only on request.  A line has at
 * most 8 MiB, is UTF-8 without NUL, and names each of its members once; members not named above are passed over.
 * Nothing of the text is kept or logged.
 */
#ifndef PEERD_DATA_H
#define PEERD_DATA_H

#include "peerd/tokenizer.h"

typedef enum pd_example_kind {
    PD_EXAMPLE_NLL,    /* text, completion, messages: negative log-likelihood of the scored tokens */
    PD_EXAMPLE_CHOICE, /* cross-entropy over the continuations' log-probabilities */
} pd_example_kind;

/* One record, ready for the model.  All arrays are borrowed from the data set.
 *
 *   NLL              1 sequence.  A text longer than the window becomes several examples, and each of its tokens is
 *                    scored in one of them; of messages too long for it the oldest tokens are dropped.
 *   CHOICE, wide     n_choices sequences, each prompt + that choice; scored marks the choice's tokens; a choice's
 *                    log-probability is their sum.
 *   CHOICE, one-token  every choice is one token: 1 sequence, the prompt; choice_ids holds the n_choices candidates for
 *                    the token after its last one (so one position and n rows of the head are enough).
 */
typedef struct pd_example {
    pd_example_kind kind;
    uint32_t n_seqs;
    const uint32_t *seq_len;    /* (n_seqs) tokens each, >= 1 */
    const uint32_t *ids;        /* sequences one after the other */
    const uint8_t *scored;      /* per id: 1 = its prediction from what stands before it carries loss */
    uint32_t n_choices, answer; /* CHOICE only */
    const uint32_t *choice_ids; /* (n_choices) or NULL */
    uint32_t n_tokens;          /* sum of seq_len */
    uint32_t line;              /* 1-based line of the file */
} pd_example;

typedef struct pd_data pd_data;

enum { PD_WINDOW_MIN = 4 };

typedef struct pd_data_opts {
    uint32_t max_tokens; /* longest sequence, e.g. the model's context, >= PD_WINDOW_MIN; a prompt too long is cut at
                          * its left */
    bool skip_bad;       /* count bad lines instead of failing on the first */
} pd_data_opts;

/* Read and tokenise a whole file.  gives *out.
 * Errors: PD_ENOENT, PD_EIO, PD_EFORMAT (`FILE:LINE: cause`; also a file without any record), PD_EUNSUPPORTED
 *         (messages, and the model has no chat template that we know), PD_EUSAGE (window), PD_ENOMEM.
 */
PD_CHECKED pd_err pd_data_open(const char *path, const pd_tokenizer *t, const pd_data_opts *opts, pd_data **out);
void pd_data_close(pd_data *d);

size_t pd_data_count(const pd_data *d);
const pd_example *pd_data_at(const pd_data *d, size_t i);
size_t pd_data_skipped(const pd_data *d); /* bad lines passed over */

#endif
