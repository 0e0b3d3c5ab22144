/* safetensors.c - the directories of safetensors files, read once and checked whole; see
 * safetensors.h.
 *
 * The header's length and every offset are a stranger's.  A file's tensors are laid in order of
 * their offsets: each has to begin where the one before it ends, the first at 0 and the last up to
 * the file's end, so hole, overlap and truncation are one comparison with three texts.
 */
#include "peerd/safetensors.h"
#include "json.h"
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    pd_tensor t;
    char dtype[12];
    uint32_t file;
    uint64_t begin, end; /* within the file's data */
} entry;

struct pd_safetensors {
    pd_map *maps;
    size_t n_maps;
    entry *entries; /* sorted by name once all files are read */
    size_t n, room;
};

static const struct {
    const char *name;
    uint32_t bytes, type;
} dtypes[] = {
    {"F32", 4, PD_GGML_F32},
    {"F16", 2, PD_GGML_F16},
    {"BF16", 2, PD_GGML_BF16},
    {"F64", 8, PD_SAFETENSORS_OTHER},
    {"I64", 8, PD_SAFETENSORS_OTHER},
    {"U64", 8, PD_SAFETENSORS_OTHER},
    {"I32", 4, PD_SAFETENSORS_OTHER},
    {"U32", 4, PD_SAFETENSORS_OTHER},
    {"I16", 2, PD_SAFETENSORS_OTHER},
    {"U16", 2, PD_SAFETENSORS_OTHER},
    {"I8", 1, PD_SAFETENSORS_OTHER},
    {"U8", 1, PD_SAFETENSORS_OTHER},
    {"BOOL", 1, PD_SAFETENSORS_OTHER},
    {"F8_E4M3", 1, PD_SAFETENSORS_OTHER},
    {"F8_E5M2", 1, PD_SAFETENSORS_OTHER},
};

/* ---- one entry of a header ---- */

static pd_err read_name(const cJSON *j, entry *x) {
    char shown[PD_SHOW_ROOM];
    size_t n = strlen(j->string);
    if (n == 0 || n > PD_GGUF_NAME_MAX)
        return pd_fail(PD_EFORMAT, "a tensor is named \"%s\" (%zu bytes; 1 to %d are allowed)",
                       pd_show(j->string, n, shown), n, PD_GGUF_NAME_MAX);
    if (pd_show(j->string, n, shown) && memchr(shown, '?', strlen(shown)))
        return pd_fail(PD_EFORMAT, "a tensor is named \"%s\", which is not plain text", shown);
    memcpy(x->t.name, j->string, n + 1);
    return PD_OK;
}

static pd_err read_dtype(const cJSON *j, entry *x, uint32_t *bytes) {
    char shown[PD_SHOW_ROOM];
    const char *dtype = json_text(j, "dtype");
    if (!dtype)
        return pd_fail(PD_EFORMAT, "tensor %s has no dtype", x->t.name);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            strcpy(x->dtype, dtype);
            x->t.type = dtypes[i].type;
            *bytes = dtypes[i].bytes;
            return PD_OK;
        }
    return pd_fail(PD_EUNSUPPORTED, "tensor %s has dtype %s, which we do not know", x->t.name,
                   pd_show(dtype, strlen(dtype), shown));
}

/* The file's shape is slowest first. */
static pd_err read_shape(const cJSON *j, entry *x) {
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(j, "shape"), *v;
    uint32_t n = 0, k = 0;
    if (!cJSON_IsArray(shape))
        return pd_fail(PD_EFORMAT, "tensor %s has no shape", x->t.name);
    cJSON_ArrayForEach(v, shape) if (++n > PD_GGUF_DIMS_MAX) return pd_fail(
        PD_EUNSUPPORTED, "tensor %s has more than %d dimensions", x->t.name, PD_GGUF_DIMS_MAX);
    x->t.n_dims = n ? n : 1;
    for (uint32_t i = 0; i < PD_GGUF_DIMS_MAX; i++)
        x->t.shape[i] = 1;
    cJSON_ArrayForEach(v, shape) {
        k++;
        if (!json_count(v, &x->t.shape[n - k]) || x->t.shape[n - k] == 0)
            return pd_fail(PD_EFORMAT, "tensor %s has a dimension that is not 1 or more",
                           x->t.name);
    }
    return PD_OK;
}

static pd_err read_offsets(const cJSON *j, entry *x, uint32_t bytes) {
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(j, "data_offsets");
    uint64_t want = bytes;
    if (!cJSON_IsArray(at) || cJSON_GetArraySize(at) != 2 ||
        !json_count(cJSON_GetArrayItem(at, 0), &x->begin) ||
        !json_count(cJSON_GetArrayItem(at, 1), &x->end) || x->begin > x->end)
        return pd_fail(PD_EFORMAT, "tensor %s has no data_offsets [begin, end]", x->t.name);
    for (uint32_t i = 0; i < x->t.n_dims; i++)
        if (__builtin_mul_overflow(want, x->t.shape[i], &want))
            return pd_fail(PD_EFORMAT, "tensor %s has more than 2^64 bytes", x->t.name);
    if (x->end - x->begin != want)
        return pd_fail(PD_EFORMAT, "tensor %s has %llu bytes, but its shape and dtype ask for %llu",
                       x->t.name, (unsigned long long)(x->end - x->begin),
                       (unsigned long long)want);
    x->t.size_bytes = (size_t)want;
    return PD_OK;
}

static pd_err read_entry(const cJSON *j, uint32_t file, entry *x) {
    uint32_t bytes = 0;
    *x = (entry){.file = file};
    pd_err e = read_name(j, x);
    if (!e && !cJSON_IsObject(j))
        e = pd_fail(PD_EFORMAT, "tensor %s is not described by an object", x->t.name);
    if (!e)
        e = read_dtype(j, x, &bytes);
    if (!e)
        e = read_shape(j, x);
    return e ? e : read_offsets(j, x, bytes);
}

/* ---- one file ---- */

static int by_begin(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin)
                                : (x->end > y->end) - (x->end < y->end);
}

/* Each tensor begins where the one before it ends, and the last ends with the file. */
static pd_err place(entry *x, size_t n, const uint8_t *data, size_t room) {
    uint64_t end = 0;
    qsort(x, n, sizeof *x, by_begin);
    for (size_t i = 0; i < n; i++) {
        if (x[i].end > room)
            return pd_fail(PD_EFORMAT, "tensor %s lies beyond the end of the file: fetch it again",
                           x[i].t.name);
        if (x[i].begin < end)
            return pd_fail(PD_EFORMAT, "tensor %s overlaps tensor %s", x[i].t.name,
                           x[i - 1].t.name);
        if (x[i].begin > end)
            return pd_fail(PD_EFORMAT, "%llu bytes before tensor %s belong to no tensor",
                           (unsigned long long)(x[i].begin - end), x[i].t.name);
        x[i].t.data = data + x[i].begin;
        end = x[i].end;
    }
    return end == room ? PD_OK
                       : pd_fail(PD_EFORMAT, "%llu bytes at the file's end belong to no tensor",
                                 (unsigned long long)(room - end));
}

static pd_err take_header(pd_safetensors *s, const cJSON *header, uint32_t file) {
    const cJSON *j;
    size_t more = (size_t)cJSON_GetArraySize(header);
    if (s->n + more > s->room) {
        entry *p = realloc(s->entries, (s->n + more) * sizeof *p);
        if (!p)
            return pd_fail(PD_ENOMEM, "no memory for %zu tensors", s->n + more);
        s->entries = p;
        s->room = s->n + more;
    }
    cJSON_ArrayForEach(j, header) {
        if (strcmp(j->string, "__metadata__") == 0)
            continue;
        pd_err e = read_entry(j, file, &s->entries[s->n]);
        if (e)
            return e;
        s->n++;
    }
    return PD_OK;
}

static pd_err read_file(pd_safetensors *s, uint32_t file) {
    const pd_map *m = &s->maps[file];
    pd_reader r = pd_reader_of(m->p, m->n);
    uint64_t n = pd_get_u64(&r);
    cJSON *header;
    size_t first = s->n;
    if (!r.ok)
        return pd_fail(PD_EFORMAT, "this is not a safetensors file: it has %zu bytes", m->n);
    if (n > PD_SAFETENSORS_HEADER_MAX)
        return pd_fail(PD_EFORMAT,
                       "this is not a safetensors file: its header would have %llu bytes (%d at "
                       "most)",
                       (unsigned long long)n, PD_SAFETENSORS_HEADER_MAX);
    const uint8_t *text = pd_get_bytes(&r, (size_t)n);
    if (!text)
        return pd_fail(PD_EFORMAT, "the file ends within its header: fetch it again");
    pd_err e = json_parse((const char *)text, (size_t)n, "its header", &header);
    if (e)
        return e;
    e = take_header(s, header, file);
    cJSON_Delete(header);
    if (e || s->n == first)
        return e ? e : pd_fail(PD_EFORMAT, "the file holds no tensor");
    return place(s->entries + first, s->n - first, r.p, pd_reader_left(&r));
}

/* ---- the whole ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->t.name, ((const entry *)b)->t.name);
}

static pd_err read_all(pd_safetensors *s, const char *const *paths, size_t n) {
    s->maps = calloc(n, sizeof *s->maps);
    if (!s->maps)
        return pd_fail(PD_ENOMEM, "no memory for %zu files", n);
    for (; s->n_maps < n; s->n_maps++) {
        pd_err e = pd_map_open(paths[s->n_maps], &s->maps[s->n_maps]);
        if (e)
            return e;
        e = read_file(s, (uint32_t)s->n_maps);
        if (e) {
            s->n_maps++; /* mapped, though refused */
            return pd_fail_in(e, "%s", paths[s->n_maps - 1]);
        }
    }
    qsort(s->entries, s->n, sizeof *s->entries, by_name);
    for (size_t i = 1; i < s->n; i++)
        if (by_name(&s->entries[i - 1], &s->entries[i]) == 0)
            return pd_fail(PD_EFORMAT, "%s: tensor %s stands twice", paths[s->entries[i].file],
                           s->entries[i].t.name);
    return PD_OK;
}

pd_err pd_safetensors_open(const char *const *paths, size_t n, pd_safetensors **out) {
    assert(n > 0 && n <= PD_SAFETENSORS_FILES_MAX);
    pd_safetensors *s = calloc(1, sizeof *s);
    pd_err e = s ? read_all(s, paths, n) : pd_fail(PD_ENOMEM, "no memory to open %s", paths[0]);
    if (e) {
        pd_safetensors_close(s);
        return e;
    }
    *out = s;
    return PD_OK;
}

void pd_safetensors_forget(const pd_safetensors *s) {
    for (size_t i = 0; i < s->n_maps; i++)
        pd_map_forget(&s->maps[i]);
}

void pd_safetensors_close(pd_safetensors *s) {
    if (!s)
        return;
    for (size_t i = 0; i < s->n_maps; i++)
        pd_map_close(&s->maps[i]);
    free(s->maps);
    free(s->entries);
    free(s);
}

size_t pd_safetensors_count(const pd_safetensors *s) {
    return s->n;
}

const pd_tensor *pd_safetensors_at(const pd_safetensors *s, size_t i) {
    assert(i < s->n);
    return &s->entries[i].t;
}

const pd_tensor *pd_safetensors_find(const pd_safetensors *s, const char *name) {
    entry want = {0};
    if (strlen(name) > PD_GGUF_NAME_MAX)
        return NULL;
    strcpy(want.t.name, name);
    const entry *x = bsearch(&want, s->entries, s->n, sizeof *s->entries, by_name);
    return x ? &x->t : NULL;
}

size_t pd_safetensors_index(const pd_safetensors *s, const pd_tensor *t) {
    return (size_t)((const entry *)t - s->entries); /* an entry begins with its tensor */
}

const char *pd_safetensors_dtype(const pd_safetensors *s, size_t i) {
    assert(i < s->n);
    return s->entries[i].dtype;
}

size_t pd_safetensors_file(const pd_safetensors *s, size_t i) {
    assert(i < s->n);
    return s->entries[i].file;
}

const uint8_t *pd_safetensors_bytes(const pd_safetensors *s, size_t k, size_t *n) {
    assert(k < s->n_maps);
    *n = s->maps[k].n;
    return s->maps[k].p;
}
