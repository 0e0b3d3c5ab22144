/* subject.c - MODEL on the command line to a model ready to run; see subject.h. */
#include "subject.h"

static pd_err open_parts(const pd_gguf *g, const pd_model_opts *opts, pd_subject *s) {
    pd_err e = pd_tokenizer_open(g, &s->tokenizer);
    if (!e)
        e = pd_model_open(g, opts, &s->model);
    if (!e && pd_tokenizer_vocab(s->tokenizer) > pd_model_info_of(s->model)->vocab)
        e = pd_fail(PD_EFORMAT, "the tokenizer has %u tokens, but the embedding only %u",
                    pd_tokenizer_vocab(s->tokenizer), pd_model_info_of(s->model)->vocab);
    return e;
}

pd_err pd_subject_open(const char *model, const pd_model_opts *opts, pd_subject *out) {
    pd_gguf *g;
    pd_subject s = {0};
    pd_err e = pd_gguf_open(model, &g);
    if (e)
        return e;
    e = open_parts(g, opts, &s);
    pd_gguf_close(g);
    if (e) {
        pd_subject_close(&s);
        return pd_fail_in(e, "%s", model);
    }
    *out = s;
    return PD_OK;
}

void pd_subject_close(pd_subject *s) {
    pd_model_close(s->model);
    pd_tokenizer_close(s->tokenizer);
    *s = (pd_subject){0};
}
