/* gguf.c - the directory of a GGUF file, read once and checked whole; see gguf.h.
 *
 *   "GGUF" | version:u32 | n_tensors:u64 | n_keys:u64
 *   key    = name:str | type:u32 | value            str = n:u64 | n bytes
 *   tensor = name:str | n_dims:u32 | dims:u64[] | type:u32 | offset:u64
 *   padding to general.alignment (32) | tensor data, each at its offset from here
 *
 * Every number is little-endian and a stranger's.  A count is believed only as far as the bytes
 * that are left can hold that many of the smallest item, so a short file cannot ask for much
 * memory.  Names are kept sorted: that finds duplicates at open and a key or tensor in log n later.
 */
#include "peerd/gguf.h"
#include "peerd/bytes.h"
#include "peerd/file.h"
#include "peerd/identity.h"
#include "peerd/quant.h"
#include "utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum value_type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    VALUE_TYPES
};

static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum {
    KEY_BYTES_MIN = 8 + 1 + 4 + 1,            /* name of one byte, type, a u8 */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* name of one byte, one dimension */
    KEY_NAME_MAX = 65535,                     /* the format's own limit */
};

typedef struct entry {
    pd_str key;
    uint32_t type; /* value_type; of the elements where is_array */
    bool is_array;
    uint64_t n;       /* elements; 1 for a plain value */
    const uint8_t *p; /* first value; checked up to its end */
} entry;

struct pd_gguf {
    pd_map map;
    entry *keys; /* sorted by key */
    pd_str *raw; /* the bytes of each, in file order */
    size_t n_keys;
    pd_tensor *tensors; /* as in the file */
    uint32_t *by_name;  /* indices of tensors, sorted by name */
    size_t n_tensors;
};

static pd_err truncated(const char *where) {
    return pd_fail(PD_EFORMAT, "the file ends within %s: fetch it again", where);
}

static bool get_str(pd_reader *r, pd_str *out) {
    uint64_t n = pd_get_u64(r);
    if (!r->ok || n > pd_reader_left(r)) {
        r->ok = false;
        return false;
    }
    *out = (pd_str){(const char *)pd_get_bytes(r, (size_t)n), (size_t)n};
    return true;
}

static int compare_str(pd_str a, pd_str b) {
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

/* ---- keys ---- */

/* Step over n values of a type.  A bool other than 0 and 1 is malformed by the format's definition.
 */
static bool skip_values(pd_reader *r, uint32_t type, uint64_t n) {
    pd_str s;
    if (type == STRING) {
        if (n > pd_reader_left(r) / 8)
            return r->ok = false;
        while (n--)
            if (!get_str(r, &s))
                return false;
        return true;
    }
    if (n > pd_reader_left(r) / value_bytes[type])
        return r->ok = false;
    const uint8_t *p = pd_get_bytes(r, (size_t)n * value_bytes[type]);
    if (type == BOOL)
        for (uint64_t i = 0; i < n; i++)
            if (p[i] > 1)
                return false;
    return true;
}

static pd_err read_key(pd_reader *r, entry *out) {
    char shown[PD_SHOW_ROOM];
    entry e = {.n = 1};
    if (!get_str(r, &e.key))
        return truncated("its metadata");
    pd_show(e.key.p, e.key.n, shown);
    if (e.key.n == 0 || e.key.n > KEY_NAME_MAX)
        return pd_fail(PD_EFORMAT, "a metadata key has a name of %zu bytes", e.key.n);
    e.type = pd_get_u32(r);
    if (e.type == ARRAY) {
        e.is_array = true;
        e.type = pd_get_u32(r);
        e.n = pd_get_u64(r);
    }
    if (!r->ok)
        return truncated("its metadata");
    if (e.type == ARRAY)
        return pd_fail(PD_EUNSUPPORTED, "key %s is an array of arrays, which we do not read",
                       shown);
    if (e.type >= VALUE_TYPES)
        return pd_fail(PD_EFORMAT, "key %s has type %u, which GGUF does not define", shown, e.type);
    e.p = r->p;
    if (!skip_values(r, e.type, e.n))
        return r->ok ? pd_fail(PD_EFORMAT, "key %s holds a bool that is neither 0 nor 1", shown)
                     : truncated("its metadata");
    *out = e;
    return PD_OK;
}

static int compare_keys(const void *a, const void *b) {
    return compare_str(((const entry *)a)->key, ((const entry *)b)->key);
}

static pd_err read_keys(pd_gguf *g, pd_reader *r, uint64_t n) {
    char shown[PD_SHOW_ROOM];
    if (n > pd_reader_left(r) / KEY_BYTES_MIN)
        return truncated("its metadata");
    g->keys = calloc((size_t)n + 1, sizeof *g->keys);
    g->raw = calloc((size_t)n + 1, sizeof *g->raw);
    if (!g->keys || !g->raw)
        return pd_fail(PD_ENOMEM, "no memory for %llu metadata keys", (unsigned long long)n);
    for (; g->n_keys < n; g->n_keys++) {
        const uint8_t *from = r->p;
        pd_err e = read_key(r, &g->keys[g->n_keys]);
        if (e)
            return e;
        g->raw[g->n_keys] = (pd_str){(const char *)from, (size_t)(r->p - from)};
    }
    qsort(g->keys, g->n_keys, sizeof *g->keys, compare_keys);
    for (size_t i = 1; i < g->n_keys; i++)
        if (compare_keys(&g->keys[i - 1], &g->keys[i]) == 0)
            return pd_fail(PD_EFORMAT, "key %s stands twice",
                           pd_show(g->keys[i].key.p, g->keys[i].key.n, shown));
    return PD_OK;
}

static const entry *find_any(const pd_gguf *g, const char *key) {
    entry want = {.key = {key, strlen(key)}};
    return bsearch(&want, g->keys, g->n_keys, sizeof *g->keys, compare_keys);
}

static const entry *find(const pd_gguf *g, const char *key, bool is_array) {
    const entry *e = find_any(g, key);
    return e && e->is_array == is_array ? e : NULL;
}

/* ---- tensors ---- */

/* Bytes of a tensor from its shape and type, every product checked. */
static pd_err measure(pd_tensor *t) {
    size_t block = pd_quant_block(t->type);
    uint64_t n = 1, size;
    if (block == 0)
        return pd_fail(PD_EUNSUPPORTED, "tensor %s has %s, which we do not know", t->name,
                       pd_quant_name(t->type));
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 0)
            return pd_fail(PD_EFORMAT, "tensor %s has no elements", t->name);
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return pd_fail(PD_EFORMAT, "tensor %s has more than 2^64 elements", t->name);
    }
    if (t->shape[0] % block != 0)
        return pd_fail(PD_EFORMAT, "tensor %s has rows of %llu elements, not whole blocks of %s",
                       t->name, (unsigned long long)t->shape[0], pd_quant_name(t->type));
    if (__builtin_mul_overflow(n / block, (uint64_t)pd_quant_block_bytes(t->type), &size) ||
        size > SIZE_MAX)
        return pd_fail(PD_EFORMAT, "tensor %s has more than 2^64 bytes", t->name);
    t->size_bytes = (size_t)size;
    return PD_OK;
}

/* One directory line; the offset is returned, the extent is checked once the data's start is known.
 */
static pd_err read_tensor(pd_reader *r, pd_tensor *t, uint64_t *offset) {
    char shown[PD_SHOW_ROOM];
    pd_str name;
    if (!get_str(r, &name))
        return truncated("its list of tensors");
    if (name.n == 0 || name.n > PD_GGUF_NAME_MAX || memchr(name.p, 0, name.n))
        return pd_fail(PD_EFORMAT, "a tensor is named \"%s\" (%zu bytes; 1 to %d are allowed)",
                       pd_show(name.p, name.n, shown), name.n, PD_GGUF_NAME_MAX);
    memcpy(t->name, name.p, name.n);
    t->n_dims = pd_get_u32(r);
    if (r->ok && (t->n_dims == 0 || t->n_dims > PD_GGUF_DIMS_MAX))
        return pd_fail(PD_EFORMAT, "tensor %s has %u dimensions", pd_show(name.p, name.n, shown),
                       t->n_dims);
    for (uint32_t i = 0; i < PD_GGUF_DIMS_MAX; i++)
        t->shape[i] = i < t->n_dims ? pd_get_u64(r) : 1;
    t->type = pd_get_u32(r);
    *offset = pd_get_u64(r);
    return r->ok ? measure(t) : truncated("its list of tensors");
}

typedef struct extent {
    uint64_t at;
    uint32_t tensor;
} extent;

static int compare_extents(const void *a, const void *b) {
    const extent *x = a, *y = b;
    return x->at != y->at ? (x->at > y->at) - (x->at < y->at)
                          : (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

/* Every tensor aligned, inside the data and clear of the one before it. */
static pd_err place(pd_gguf *g, extent *at, const uint8_t *data, size_t room, uint64_t align) {
    uint64_t end = 0;
    qsort(at, g->n_tensors, sizeof *at, compare_extents);
    for (size_t i = 0; i < g->n_tensors; i++) {
        pd_tensor *t = &g->tensors[at[i].tensor];
        if (at[i].at % align != 0)
            return pd_fail(PD_EFORMAT, "tensor %s does not start at a multiple of %llu", t->name,
                           (unsigned long long)align);
        if (at[i].at > room || t->size_bytes > room - at[i].at)
            return pd_fail(PD_EFORMAT, "tensor %s lies beyond the end of the file: fetch it again",
                           t->name);
        if (at[i].at < end)
            return pd_fail(PD_EFORMAT, "tensor %s overlaps tensor %s", t->name,
                           g->tensors[at[i - 1].tensor].name);
        t->data = data + at[i].at;
        end = at[i].at + t->size_bytes;
    }
    return PD_OK;
}

static int compare_names(const void *a, const void *b, void *g) {
    const pd_tensor *t = ((const pd_gguf *)g)->tensors;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static pd_err index_tensors(pd_gguf *g) {
    for (size_t i = 0; i < g->n_tensors; i++)
        g->by_name[i] = (uint32_t)i;
    qsort_r(g->by_name, g->n_tensors, sizeof *g->by_name, compare_names, g);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (compare_names(&g->by_name[i - 1], &g->by_name[i], g) == 0)
            return pd_fail(PD_EFORMAT, "tensor %s stands twice", g->tensors[g->by_name[i]].name);
    return PD_OK;
}

static pd_err read_alignment(const pd_gguf *g, uint64_t *out) {
    *out = 32;
    if (find_any(g, "general.alignment") && !pd_gguf_u64(g, "general.alignment", out))
        *out = 0;
    if (*out == 0 || *out > 1u << 30 || (*out & (*out - 1)) != 0)
        return pd_fail(PD_EFORMAT, "general.alignment is not a power of two");
    return PD_OK;
}

static pd_err read_tensors(pd_gguf *g, pd_reader *r, uint64_t n) {
    uint64_t align;
    pd_err e = read_alignment(g, &align);
    if (e)
        return e;
    if (n > pd_reader_left(r) / TENSOR_BYTES_MIN || n > UINT32_MAX)
        return truncated("its list of tensors");
    g->tensors = calloc((size_t)n + 1, sizeof *g->tensors);
    g->by_name = calloc((size_t)n + 1, sizeof *g->by_name);
    extent *at = calloc((size_t)n + 1, sizeof *at);
    if (!g->tensors || !g->by_name || !at)
        e = pd_fail(PD_ENOMEM, "no memory for %llu tensors", (unsigned long long)n);
    for (; !e && g->n_tensors < n; g->n_tensors++) {
        at[g->n_tensors].tensor = (uint32_t)g->n_tensors;
        e = read_tensor(r, &g->tensors[g->n_tensors], &at[g->n_tensors].at);
    }
    if (!e) {
        uint64_t head = g->map.n - pd_reader_left(r), start = (head + align - 1) & ~(align - 1);
        size_t room = start < g->map.n ? g->map.n - (size_t)start : 0;
        e = place(g, at, g->map.p + (room ? start : 0), room, align);
    }
    free(at);
    return e ? e : index_tensors(g);
}

/* ---- the whole ---- */

static pd_err parse(pd_gguf *g) {
    pd_reader r = pd_reader_of(g->map.n ? (const void *)g->map.p : "", g->map.n);
    const uint8_t *magic = pd_get_bytes(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return pd_fail(PD_EFORMAT, "this is not a GGUF file");
    uint32_t version = pd_get_u32(&r);
    if (r.ok && version != 0 && (version & 0xffff) == 0)
        return pd_fail(PD_EUNSUPPORTED, "a big-endian GGUF file is not supported: convert it");
    if (r.ok && version != 2 && version != 3)
        return pd_fail(PD_EUNSUPPORTED, "GGUF version %u is not supported (2 and 3 are)", version);
    uint64_t n_tensors = pd_get_u64(&r), n_keys = pd_get_u64(&r);
    if (!r.ok)
        return truncated("its header");
    pd_err e = read_keys(g, &r, n_keys);
    return e ? e : read_tensors(g, &r, n_tensors);
}

pd_err pd_gguf_open(const char *path, pd_gguf **out) {
    pd_gguf *g = calloc(1, sizeof *g);
    if (!g)
        return pd_fail(PD_ENOMEM, "no memory to open %s", path);
    pd_err e = pd_map_open(path, &g->map);
    if (!e) {
        e = parse(g);
        if (e)
            e = pd_fail_in(e, "%s", path);
    }
    if (e) {
        pd_gguf_close(g);
        return e;
    }
    *out = g;
    return PD_OK;
}

void pd_gguf_forget(const pd_gguf *g) {
    pd_map_forget(&g->map);
}

void pd_gguf_close(pd_gguf *g) {
    if (!g)
        return;
    pd_map_close(&g->map);
    free(g->keys);
    free(g->raw);
    free(g->tensors);
    free(g->by_name);
    free(g);
}

size_t pd_gguf_tensors(const pd_gguf *g) {
    return g->n_tensors;
}

const pd_tensor *pd_gguf_tensor_at(const pd_gguf *g, size_t i) {
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

const pd_tensor *pd_gguf_tensor(const pd_gguf *g, const char *name) {
    size_t lo = 0, hi = g->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, g->tensors[g->by_name[mid]].name);
        if (c == 0)
            return &g->tensors[g->by_name[mid]];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* ---- metadata ---- */

/* Element i of an integer type as a signed and an unsigned number; false for other types. */
static bool integer_at(const entry *e, uint64_t i, bool *negative, uint64_t *out) {
    static const bool is_signed[VALUE_TYPES] = {
        [I8] = true, [I16] = true, [I32] = true, [I64] = true};
    if (e->type == F32 || e->type == F64 || e->type == BOOL || e->type == STRING)
        return false;
    unsigned n = value_bytes[e->type];
    const uint8_t *p = e->p + i * n;
    uint64_t v = 0;
    for (unsigned k = 0; k < n; k++)
        v |= (uint64_t)p[k] << 8 * k;
    *negative = is_signed[e->type] && p[n - 1] >> 7;
    if (*negative && n < 8)
        v |= ~(uint64_t)0 << 8 * n;
    *out = v;
    return true;
}

bool pd_gguf_u64(const pd_gguf *g, const char *key, uint64_t *out) {
    const entry *e = find(g, key, false);
    bool negative;
    uint64_t v;
    if (!e || !integer_at(e, 0, &negative, &v) || negative)
        return false;
    *out = v;
    return true;
}

static float f32_at(const uint8_t *p) {
    uint32_t bits = pd_load32(p);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

bool pd_gguf_f64(const pd_gguf *g, const char *key, double *out) {
    const entry *e = find(g, key, false);
    if (!e || (e->type != F32 && e->type != F64))
        return false;
    if (e->type == F32) {
        *out = (double)f32_at(e->p);
    } else {
        uint64_t bits = pd_load64(e->p);
        memcpy(out, &bits, sizeof *out);
    }
    return true;
}

bool pd_gguf_bool(const pd_gguf *g, const char *key, bool *out) {
    const entry *e = find(g, key, false);
    if (!e || e->type != BOOL)
        return false;
    *out = e->p[0] != 0;
    return true;
}

bool pd_gguf_str(const pd_gguf *g, const char *key, pd_str *out) {
    const entry *e = find(g, key, false);
    if (!e || e->type != STRING)
        return false;
    *out = (pd_str){(const char *)e->p + 8, (size_t)pd_load64(e->p)};
    return true;
}

bool pd_gguf_count(const pd_gguf *g, const char *key, size_t *n) {
    const entry *e = find(g, key, true);
    if (e)
        *n = (size_t)e->n;
    return e != NULL;
}

bool pd_gguf_strs(const pd_gguf *g, const char *key, pd_str *out, size_t n) {
    const entry *e = find(g, key, true);
    if (!e || e->type != STRING || e->n != n)
        return false;
    const uint8_t *p = e->p;
    for (size_t i = 0; i < n; i++) {
        out[i] = (pd_str){(const char *)p + 8, (size_t)pd_load64(p)};
        p += 8 + out[i].n;
    }
    return true;
}

bool pd_gguf_f32s(const pd_gguf *g, const char *key, float *out, size_t n) {
    const entry *e = find(g, key, true);
    if (!e || e->type != F32 || e->n != n)
        return false;
    for (size_t i = 0; i < n; i++)
        out[i] = f32_at(e->p + 4 * i);
    return true;
}

bool pd_gguf_i32s(const pd_gguf *g, const char *key, int32_t *out, size_t n) {
    const entry *e = find(g, key, true);
    if (!e || e->n != n)
        return false;
    for (int pass = 0; pass < 2; pass++) { /* look first: out is untouched where one does not fit */
        for (size_t i = 0; i < n; i++) {
            bool negative;
            uint64_t v;
            if (!integer_at(e, i, &negative, &v) ||
                (negative ? (int64_t)v < INT32_MIN : v > (uint64_t)INT32_MAX))
                return false;
            if (pass)
                out[i] = (int32_t)(int64_t)v;
        }
    }
    return true;
}

size_t pd_gguf_keys(const pd_gguf *g) {
    return g->n_keys;
}

pd_str pd_gguf_key_at(const pd_gguf *g, size_t i, pd_str *name) {
    assert(i < g->n_keys);
    pd_str raw = g->raw[i];
    *name = (pd_str){raw.p + 8, (size_t)pd_load64((const uint8_t *)raw.p)};
    return raw;
}

/* "peerd.model.v1" | per tensor in order of name: n:u32 name | type:u32 | n_dims:u32 | dims:u64[4]
 * | bytes:u64 | data */
void pd_gguf_digest(const pd_gguf *g, uint8_t out[32]) {
    pd_hash h;
    pd_hash_init(&h);
    pd_hash_add(&h, "peerd.model.v1", 14);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const pd_tensor *t = &g->tensors[g->by_name[i]];
        uint8_t head[4 + PD_GGUF_NAME_MAX + 4 + 4 + 8 * PD_GGUF_DIMS_MAX + 8];
        pd_writer w = pd_writer_of(head, sizeof head);
        uint32_t n = (uint32_t)strlen(t->name);
        pd_put_u32(&w, n);
        pd_put_bytes(&w, t->name, n);
        pd_put_u32(&w, t->type);
        pd_put_u32(&w, t->n_dims);
        for (int d = 0; d < PD_GGUF_DIMS_MAX; d++)
            pd_put_u64(&w, t->shape[d]);
        pd_put_u64(&w, t->size_bytes);
        pd_hash_add(&h, head, (size_t)(w.p - head));
        pd_hash_add(&h, t->data, t->size_bytes);
    }
    pd_hash_end(&h, out);
}
