/* subject.c - MODEL on the command line to a model ready to run; see subject.h. */
#include "subject.h"
#include "site.h"

#include <stdlib.h>
#include <sys/stat.h>

struct pd_subject_parts {
    pd_tokenizer *tokenizer; /* of a base model */
    pd_model *model;
    pd_site site; /* of a node's folder */
    pd_view *view;
};

static pd_err open_parts(const pd_base *b, const pd_model_opts *opts, pd_subject *s) {
    pd_err e = pd_base_tokenizer(b, &s->parts->tokenizer);
    if (!e)
        e = pd_base_model(b, opts, &s->parts->model);
    if (e)
        return e;
    s->tokenizer = s->parts->tokenizer;
    s->model = s->parts->model;
    return pd_base_check_vocab(b, s->tokenizer, s->model);
}

static pd_err open_base(const char *path, const pd_model_opts *opts, pd_subject *s) {
    pd_base *b;
    pd_err e = pd_base_open(path, &b);
    if (e)
        return e;
    e = open_parts(b, opts, s);
    pd_base_close(b);
    return e;
}

static pd_err open_node(const char *dir, const pd_model_opts *opts, pd_subject *s) {
    pd_site_opts so = {.compute = opts->compute,
                       .threads = opts->threads ? opts->threads : UINT32_MAX};
    pd_err e = pd_site_open(dir, PD_SITE_MODEL, &so, &s->parts->site);
    if (!e)
        e = pd_site_view(&s->parts->site, &s->parts->view);
    if (e)
        return e;
    s->tokenizer = s->parts->site.tokenizer;
    s->model = s->parts->site.model;
    s->adapter = pd_view_adapter(s->parts->view);
    return PD_OK;
}

pd_err pd_subject_open(const char *model, const pd_model_opts *opts, pd_subject *out) {
    struct stat st;
    pd_subject s = {.parts = calloc(1, sizeof(struct pd_subject_parts))};
    if (!s.parts)
        return pd_fail(PD_ENOMEM, "no memory for a model");
    bool node = stat(model, &st) == 0 && S_ISDIR(st.st_mode) && !pd_base_is_folder(model);
    pd_err e = node ? open_node(model, opts, &s) : open_base(model, opts, &s);
    if (e) {
        pd_subject_close(&s);
        return e;
    }
    *out = s;
    return PD_OK;
}

void pd_subject_close(pd_subject *s) {
    struct pd_subject_parts *p = s->parts;
    if (!p)
        return;
    pd_view_close(p->view);
    pd_site_close(&p->site);
    pd_model_close(p->model);
    pd_tokenizer_close(p->tokenizer);
    free(p);
    *s = (pd_subject){0};
}
