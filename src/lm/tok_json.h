/* tok_json.h - the two halves of tokenizer.json's reader: the way of a text (tokenizer_pipe.c), the
 * vocabulary and the rest (tokenizer_json.c).  Private to them. */
#ifndef PD_LM_TOK_JSON_H
#define PD_LM_TOK_JSON_H

#include "json.h"
#include "tok.h"

/* Read normalizer and pre_tokenizer (either may be NULL) into the tokenizer's kind, space, split
 * and flags. *spells: the normaliser itself spells spaces U+2581.  Errors: PD_EUNSUPPORTED (a part,
 * or a mixture of parts, that is not done; named), PD_EFORMAT, PD_ENOMEM. */
PD_CHECKED pd_err tok_json_pipe(pd_tokenizer *t, const cJSON *normalizer, const cJSON *pre,
                                bool *spells);

/* The token that the post-processor puts before a text: *bos, or TOK_NONE.  n: size of the
 * vocabulary.  Errors: PD_EUNSUPPORTED (it puts anything else anywhere, or is of a kind that is not
 * done). */
PD_CHECKED pd_err tok_json_bos(const cJSON *post, size_t n, uint32_t *bos);

#endif
