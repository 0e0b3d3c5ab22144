/* subject.h - what eval and generate run on: a model's file or folder, or a node's folder, which
 * has an adapter too. */
#ifndef PD_SUBJECT_H
#define PD_SUBJECT_H

#include "peerd/model.h"

typedef struct pd_subject {
    const pd_tokenizer *tokenizer;
    const pd_model *model;
    const pd_adapter *adapter;      /* or NULL: the base alone */
    struct pd_subject_parts *parts; /* what they belong to */
} pd_subject;

/* Open MODEL.  gives; pd_subject_close frees (a zeroed one is fine).
 *
 *   opts  in   what they leave at AUTO or 0 is as the node's settings say, for a node
 *
 * Errors: as pd_base_open, pd_base_tokenizer, pd_base_model and pd_site_open, with the file's name.
 */
PD_CHECKED pd_err pd_subject_open(const char *model, const pd_model_opts *opts, pd_subject *out);
void pd_subject_close(pd_subject *s);

#endif
