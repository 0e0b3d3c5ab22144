/* export_subject.h - an adapter of a micro model, and a folder to export it to. */
#ifndef PD_EXPORT_SUBJECT_H
#define PD_EXPORT_SUBJECT_H

#include "micro.h"
#include "train.h"

typedef struct subject { /* an adapter of a micro model */
    micro m;
    pd_gguf *file;
    pd_model *model;
    const pd_model_info *info;
    pd_manifest manifest;
    pd_basis *basis;
    pd_space *space;
    pd_view *view;
    int32_t *a; /* where it is set to */
    char dir[64];
} subject;

static inline subject open_twisted(pd_space_kind kind, uint32_t first_layer, uint32_t targets,
                                   bool tied, const twist *tw) {
    subject s = {.m = make_twisted(tied, false, 24, tw)};
    pd_model_opts o = {.compute = PD_COMPUTE_F32, .threads = 1};
    ck_ok(pd_gguf_open(s.m.path, &s.file));
    ck_ok(pd_model_open(s.file, &o, &s.model));
    s.info = pd_model_info_of(s.model);
    s.manifest = manifest_of(kind, 2, targets, s.info);
    s.manifest.first_layer = first_layer;
    s.manifest.n_coords = pd_space_size(&s.manifest, s.info);
    pd_gguf_digest(s.file, s.manifest.model_digest);
    if (kind == PD_SPACE_ALIGNED)
        s.basis = random_basis_of(s.info, first_layer, targets, 3, 2, 5);
    ck_ok(pd_space_open(&s.manifest, s.info, s.basis, &s.space));
    ck_ok(pd_view_open(s.space, &s.view));
    pd_rng rng = {9};
    s.a = malloc(s.manifest.n_coords * sizeof *s.a);
    for (uint64_t i = 0; i < s.manifest.n_coords; i++)
        s.a[i] = (int32_t)(signed_uniform(&rng) * (1 << 20));
    pd_view_set(s.view, s.a, NULL, 0);
    snprintf(s.dir, sizeof s.dir, "/tmp/pd-export-XXXXXX");
    ck_assert(mkdtemp(s.dir));
    return s;
}

static inline subject open_subject(pd_space_kind kind, uint32_t targets) {
    return open_twisted(kind, 0, targets, true, &(twist){0});
}

static inline void close_subject(subject *s) {
    char path[128];
    static const char *const names[] = {"adapter.gguf",
                                        "peft/adapter_model.safetensors",
                                        "peft/adapter_config.json",
                                        "peft",
                                        "merged.gguf",
                                        "hf/model.safetensors",
                                        "hf/README.md",
                                        "hf/config.json",
                                        "hf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, names[i]);
        (void)remove(path);
    }
    ck_assert_int_eq(rmdir(s->dir), 0); /* nothing else was left there */
    pd_view_close(s->view);
    free(s->a);
    pd_space_close(s->space);
    pd_basis_free(s->basis);
    pd_model_close(s->model);
    pd_gguf_close(s->file);
    drop(&s->m);
}

static inline const char *in_dir(const subject *s, const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    return path;
}

#endif
