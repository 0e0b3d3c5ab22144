/* base.c - a base model from what a person named; see base.h.
 *
 *   model.safetensors.index.json = {"metadata": {...}, "weight_map": {TENSOR: FILE, ...}}
 *
 * A shard's name is a stranger's: a plain name of a file beside the index, no path.
 */
#include "peerd/base.h"
#include "hf.h"
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/identity.h"
#include "utf8.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX = 1 << 20, INDEX_MAX = 1 << 24 };

struct pd_base {
    char path[PATH_MAX]; /* as named, without slashes at its end */
    pd_gguf *file;       /* or a folder: */
    cJSON *config;
    pd_map config_map, tokenizer_map;
    char **shards; /* names, sorted */
    size_t n_shards;
    pd_safetensors *tensors;
};

static pd_err in_folder(const pd_base *b, const char *name, char out[PATH_MAX]) {
    return pd_path_join(out, PATH_MAX, b->path, name);
}

/* ---- shards ---- */

static bool is_plain_name(const char *s) {
    size_t n = strlen(s), end = strlen(".safetensors");
    return n > end && n <= 255 && s[0] != '.' && !strchr(s, '/') &&
           strcmp(s + n - end, ".safetensors") == 0;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Insert unless it is there: an index names few files many times. */
static pd_err add_shard(pd_base *b, const char *name) {
    if (b->n_shards && bsearch(&name, b->shards, b->n_shards, sizeof *b->shards, by_text))
        return PD_OK;
    if (b->n_shards == PD_SAFETENSORS_FILES_MAX)
        return pd_fail(PD_EUNSUPPORTED, "more than %d shards are not supported",
                       PD_SAFETENSORS_FILES_MAX);
    char **p = realloc(b->shards, (b->n_shards + 1) * sizeof *p);
    if (p)
        b->shards = p;
    char *copy = p ? strdup(name) : NULL;
    if (!copy)
        return pd_fail(PD_ENOMEM, "no memory for the names of a model's files");
    b->shards[b->n_shards++] = copy;
    qsort(b->shards, b->n_shards, sizeof *b->shards, by_text);
    return PD_OK;
}

static pd_err read_map(pd_base *b, const cJSON *map) {
    char shown[PD_SHOW_ROOM];
    const cJSON *j;
    if (!cJSON_IsObject(map) || !map->child)
        return pd_fail(PD_EFORMAT, "there is no weight_map");
    cJSON_ArrayForEach(j, map) {
        const char *name = cJSON_GetStringValue(j);
        if (!name || !is_plain_name(name))
            return pd_fail(PD_EFORMAT, "weight_map names %s, which is no file beside it",
                           name ? pd_show(name, strlen(name), shown) : "no text");
        pd_err e = add_shard(b, name);
        if (e)
            return e;
    }
    return PD_OK;
}

/* The index and the shards have to say the same of every tensor. */
static pd_err check_map(const pd_base *b, const cJSON *map) {
    char shown[PD_SHOW_ROOM];
    const cJSON *j;
    size_t n = 0;
    cJSON_ArrayForEach(j, map) {
        const pd_tensor *t = pd_safetensors_find(b->tensors, j->string);
        size_t file = t ? pd_safetensors_file(b->tensors, pd_safetensors_index(b->tensors, t)) : 0;
        if (!t || strcmp(b->shards[file], j->valuestring) != 0)
            return pd_fail(PD_EFORMAT, "tensor %s is not in %s",
                           pd_show(j->string, strlen(j->string), shown), j->valuestring);
        n++;
    }
    return n == pd_safetensors_count(b->tensors)
               ? PD_OK
               : pd_fail(PD_EFORMAT, "the shards hold %zu tensors, but %zu are named",
                         pd_safetensors_count(b->tensors), n);
}

static pd_err open_shards(pd_base *b) {
    char **paths = calloc(b->n_shards, sizeof *paths);
    pd_err e = paths ? PD_OK : pd_fail(PD_ENOMEM, "no memory for a model's files");
    for (size_t i = 0; !e && i < b->n_shards; i++) {
        char path[PATH_MAX];
        e = in_folder(b, b->shards[i], path);
        if (!e && !(paths[i] = strdup(path)))
            e = pd_fail(PD_ENOMEM, "no memory for a model's files");
    }
    if (!e)
        e = pd_safetensors_open((const char *const *)paths, b->n_shards, &b->tensors);
    for (size_t i = 0; paths && i < b->n_shards; i++)
        free(paths[i]);
    free(paths);
    return e;
}

static pd_err open_index(pd_base *b, const char *path) {
    cJSON *index;
    pd_err e = json_read(path, INDEX_MAX, &index);
    if (e)
        return e;
    const cJSON *map = json_at(index, "weight_map");
    e = read_map(b, map);
    bool ours = e != PD_OK;
    if (!e && !(e = open_shards(b)))
        ours = (e = check_map(b, map)) != PD_OK;
    cJSON_Delete(index);
    return ours ? pd_fail_in(e, "%s", path) : e; /* a shard's error names the shard */
}

static pd_err open_weights(pd_base *b) {
    char path[PATH_MAX], pickled[PATH_MAX];
    pd_err e = in_folder(b, "model.safetensors", path);
    if (e)
        return e;
    if (pd_file_exists(path)) {
        e = add_shard(b, "model.safetensors");
        return e ? e : open_shards(b);
    }
    e = in_folder(b, "model.safetensors.index.json", path);
    if (e)
        return e;
    if (pd_file_exists(path))
        return open_index(b, path);
    e = in_folder(b, "pytorch_model.bin", pickled);
    if (!e && pd_file_exists(pickled))
        return pd_fail(
            PD_EUNSUPPORTED,
            "%s is a pickled file, which is not supported: save the model as safetensors", pickled);
    return e ? e
             : pd_fail(PD_ENOENT,
                       "%s has neither model.safetensors nor model.safetensors.index.json",
                       b->path);
}

/* ---- open ---- */

static pd_err map_in_folder(pd_base *b, const char *name, pd_map *map) {
    char path[PATH_MAX];
    pd_err e = in_folder(b, name, path);
    return e ? e : pd_map_open(path, map);
}

static pd_err open_folder(pd_base *b) {
    char config[PATH_MAX];
    pd_err e = in_folder(b, "config.json", config);
    if (!e)
        e = json_read(config, CONFIG_MAX, &b->config);
    if (!e)
        e = map_in_folder(b, "config.json", &b->config_map);
    if (!e)
        e = map_in_folder(b, "tokenizer.json", &b->tokenizer_map);
    return e ? e : open_weights(b);
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool pd_base_is_folder(const char *path) {
    char config[PATH_MAX];
    return is_folder(path) && pd_path_join(config, sizeof config, path, "config.json") == PD_OK &&
           pd_file_exists(config);
}

pd_err pd_base_open(const char *path, pd_base **out) {
    pd_base *b = calloc(1, sizeof *b);
    if (!b)
        return pd_fail(PD_ENOMEM, "no memory to open %s", path);
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    pd_err e = n < sizeof b->path ? PD_OK : pd_fail(PD_EUSAGE, "path too long: %s", path);
    if (!e) {
        memcpy(b->path, path, n);
        e = is_folder(path) ? open_folder(b) : pd_gguf_open(path, &b->file);
    }
    if (e) {
        pd_base_close(b);
        return e;
    }
    *out = b;
    return PD_OK;
}

void pd_base_close(pd_base *b) {
    if (!b)
        return;
    pd_gguf_close(b->file);
    pd_safetensors_close(b->tensors);
    cJSON_Delete(b->config);
    pd_map_close(&b->config_map);
    pd_map_close(&b->tokenizer_map);
    for (size_t i = 0; i < b->n_shards; i++)
        free(b->shards[i]);
    free(b->shards);
    free(b);
}

/* ---- what it holds ---- */

const pd_safetensors *pd_base_tensors(const pd_base *b) {
    return b->tensors;
}

size_t pd_base_shards(const pd_base *b) {
    return b->n_shards;
}

const char *pd_base_shard(const pd_base *b, size_t k) {
    assert(k < b->n_shards);
    return b->shards[k];
}

pd_err pd_base_tokenizer(const pd_base *b, pd_tokenizer **out) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "config.json",
                                        "chat_template.jinja"};
    char paths[4][PATH_MAX];
    const char *at[4] = {NULL};
    if (b->file) {
        pd_err e = pd_tokenizer_open(b->file, out);
        return e ? pd_fail_in(e, "%s", b->path) : PD_OK;
    }
    for (int i = 0; i < 4; i++) {
        pd_err e = in_folder(b, names[i], paths[i]);
        if (e)
            return e;
        at[i] = i == 0 || pd_file_exists(paths[i]) ? paths[i] : NULL;
    }
    pd_tokenizer_files files = {at[0], at[1], at[2], at[3]};
    return pd_tokenizer_open_json(&files, out);
}

/* A folder's model is called what the folder is. */
static void name_model(const pd_base *b, pd_model_info *info) {
    const char *slash = strrchr(b->path, '/'), *name = slash ? slash + 1 : b->path;
    char shown[PD_SHOW_ROOM];
    snprintf(info->name, sizeof info->name, "%s", pd_show(name, strlen(name), shown));
}

pd_err pd_base_model(const pd_base *b, const pd_model_opts *opts, pd_model **out) {
    pd_weights *w;
    pd_err e =
        b->file ? pd_model_open(b->file, opts, out) : hf_weights_open(b->config, b->tensors, &w);
    if (!e && !b->file) {
        name_model(b, &w->info);
        e = pd_model_pack(w, opts, out);
        pd_weights_close(w);
    }
    return e ? pd_fail_in(e, "%s", b->path) : PD_OK;
}

pd_err pd_base_check_vocab(const pd_base *b, const pd_tokenizer *t, const pd_model *m) {
    uint32_t tokens = pd_tokenizer_vocab(t), rows = pd_model_info_of(m)->vocab;
    return tokens <= rows
               ? PD_OK
               : pd_fail(PD_EFORMAT, "%s: the tokenizer has %u tokens, but the embedding only %u",
                         b->path, tokens, rows);
}

static void hash_file(pd_hash *h, const char *name, const uint8_t *p, size_t size) {
    uint8_t n[8], digest[32];
    pd_hash content;
    pd_hash_init(&content);
    pd_hash_add(&content, p, size);
    pd_hash_end(&content, digest);
    pd_store32(n, (uint32_t)strlen(name));
    pd_hash_add(h, n, 4);
    pd_hash_add(h, name, strlen(name));
    pd_store64(n, size);
    pd_hash_add(h, n, 8);
    pd_hash_add(h, digest, 32);
}

typedef struct counted {
    const char *name;
    const uint8_t *p;
    size_t n;
} counted;

static int by_file_name(const void *a, const void *b) {
    return strcmp(((const counted *)a)->name, ((const counted *)b)->name);
}

void pd_base_digest(const pd_base *b, uint8_t out[32]) {
    counted files[PD_SAFETENSORS_FILES_MAX + 2] = {
        {"config.json", b->config_map.p, b->config_map.n},
        {"tokenizer.json", b->tokenizer_map.p, b->tokenizer_map.n}};
    size_t n = 2;
    uint8_t count[4];
    pd_hash h;
    if (b->file) {
        pd_gguf_digest(b->file, out);
        return;
    }
    for (size_t i = 0; i < b->n_shards; i++, n++) {
        files[n].name = b->shards[i];
        files[n].p = pd_safetensors_bytes(b->tensors, i, &files[n].n);
    }
    qsort(files, n, sizeof *files, by_file_name);
    pd_hash_init(&h);
    pd_hash_add(&h, "peerd.folder.v1", 15);
    pd_store32(count, (uint32_t)n);
    pd_hash_add(&h, count, 4);
    for (size_t i = 0; i < n; i++)
        hash_file(&h, files[i].name, files[i].p, files[i].n);
    pd_hash_end(&h, out);
}
