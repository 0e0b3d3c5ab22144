/* merged_folder.c - a Hugging Face folder and an adapter as another such folder; see
 * export_merged.h.
 *
 * The base's own files are the pattern: as many shards, of the same names and tensors.  What is
 * not weights is copied, config.json last, so that a folder with a config is whole.
 */
#include "merge.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char config_name[] = "config.json", index_name[] = "model.safetensors.index.json";

/* What transformers reads beside weights and config, where it is there. */
static const char *const beside[] = {
    "tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model",       "vocab.json",
    "merges.txt",        "chat_template.jinja",   "generation_config.json"};
enum { BESIDE = sizeof beside / sizeof *beside, FILE_MAX = 256 << 20 };

/* ---- what it is made of ---- */

static size_t shard_of(const pd_merge *x, const pd_merge_tensor *t) {
    const pd_safetensors *s = pd_base_tensors(x->folder);
    return pd_safetensors_file(s, pd_safetensors_index(s, t->t));
}

/* Tensors come by name; a shard has them as its file does. */
static int by_place(const void *a, const void *b, void *ctx) {
    const pd_merge_tensor *p = a, *q = b;
    size_t i = shard_of(ctx, p), j = shard_of(ctx, q);
    if (i != j)
        return (i > j) - (i < j);
    return (p->t->data > q->t->data) - (p->t->data < q->t->data);
}

static pd_err check_family(const pd_merged *m) {
    const char *arch = m->info->arch;
    if (strcmp(arch, "llama") == 0 || strcmp(arch, "qwen2") == 0 || strcmp(arch, "qwen3") == 0)
        return PD_OK;
    return pd_fail(PD_EUNSUPPORTED,
                   "a merged folder of a %s model is not written here (llama, qwen2 and qwen3)",
                   arch);
}

static pd_err check_vacant(const pd_merge *x, const char *dir) {
    char path[PATH_MAX];
    size_t shards = pd_base_shards(x->folder);
    pd_err e = PD_OK;
    for (size_t i = 0; i < shards + BESIDE + 2 && !e; i++) {
        const char *name = i < shards             ? pd_base_shard(x->folder, i)
                           : i < shards + BESIDE  ? beside[i - shards]
                           : i == shards + BESIDE ? index_name
                                                  : config_name;
        e = pd_path_join(path, sizeof path, dir, name);
        if (!e)
            e = pd_merge_vacant(path);
    }
    return e;
}

/* ---- writing ---- */

static pd_err write_shards(pd_merge *x, const char *dir) {
    char path[PATH_MAX];
    pd_err e = PD_OK;
    for (size_t first = 0, n = 0; first < x->n && !e; first += n, n = 0) {
        size_t shard = shard_of(x, &x->at[first]);
        while (first + n < x->n && shard_of(x, &x->at[first + n]) == shard)
            n++;
        e = pd_path_join(path, sizeof path, dir, pd_base_shard(x->folder, shard));
        if (!e)
            e = pd_merge_save(x, first, n, path);
    }
    return e;
}

static pd_err write_json(const char *dir, const char *name, cJSON *j) {
    char path[PATH_MAX], *text = cJSON_Print(j);
    cJSON_Delete(j);
    pd_err e = text ? pd_path_join(path, sizeof path, dir, name)
                    : pd_fail(PD_ENOMEM, "no memory for %s", name);
    if (!e)
        e = pd_file_replace(path, text, strlen(text), 0644);
    free(text);
    return e;
}

static pd_err write_index(const pd_merge *x, const char *dir) {
    if (pd_base_shards(x->folder) == 1 &&
        strcmp(pd_base_shard(x->folder, 0), "model.safetensors") == 0)
        return PD_OK; /* found without one */
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(cJSON_AddObjectToObject(j, "metadata"), "total_size",
                            (double)pd_merge_bytes_all(x));
    cJSON *map = cJSON_AddObjectToObject(j, "weight_map");
    for (size_t i = 0; i < x->n; i++)
        cJSON_AddStringToObject(map, x->at[i].name,
                                pd_base_shard(x->folder, shard_of(x, &x->at[i])));
    return write_json(dir, index_name, j);
}

static pd_err read_file(const pd_merged *m, const char *name, uint8_t **p, size_t *n) {
    char path[PATH_MAX];
    pd_err e = pd_path_join(path, sizeof path, m->base, name);
    return e ? e : pd_file_read(path, FILE_MAX, p, n);
}

/* A file that is not there is none of this model's. */
static pd_err copy(const pd_merged *m, const char *dir, const char *name) {
    char path[PATH_MAX];
    uint8_t *p;
    size_t n;
    pd_err e = read_file(m, name, &p, &n);
    if (e)
        return e == PD_ENOENT ? PD_OK : e;
    e = pd_path_join(path, sizeof path, dir, name);
    if (!e)
        e = pd_file_replace(path, p, n, 0644);
    free(p);
    return e;
}

/* The base's, but for the type that its matrices have become; transformers 5 calls it "dtype". */
static pd_err write_config(const pd_merged *m, const char *dir) {
    uint8_t *p;
    size_t n;
    if (m->type == PD_MERGED_AUTO)
        return copy(m, dir, config_name);
    pd_err e = read_file(m, config_name, &p, &n);
    if (e)
        return e;
    cJSON *j = cJSON_ParseWithLength((const char *)p, n);
    free(p);
    if (!j)
        return pd_fail(PD_EFORMAT, "%s/%s is no JSON any more", m->base, config_name);
    const char *key = cJSON_GetObjectItemCaseSensitive(j, "dtype") ? "dtype" : "torch_dtype";
    cJSON_DeleteItemFromObjectCaseSensitive(j, key);
    cJSON_AddStringToObject(j, key, pd_merge_dtype(m->type));
    return write_json(dir, config_name, j);
}

static pd_err write_all(pd_merge *x, const char *dir) {
    pd_err e = check_vacant(x, dir);
    if (!e)
        e = pd_dir_make(dir);
    if (!e)
        e = write_shards(x, dir);
    if (!e)
        e = write_index(x, dir);
    for (int i = 0; i < BESIDE && !e; i++)
        e = copy(x->of, dir, beside[i]);
    return e ? e : write_config(x->of, dir);
}

pd_err pd_merge_folder(const char *dir, const pd_merged *m) {
    pd_merge x;
    pd_err e = check_family(m);
    if (e)
        return e;
    e = pd_merge_open_folder(m, &x);
    if (!e) {
        qsort_r(x.at, x.n, sizeof *x.at, by_place, &x);
        e = write_all(&x, dir);
    }
    pd_merge_close(&x);
    return e;
}
