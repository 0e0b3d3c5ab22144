/* merged_gguf.c - base and adapter as one GGUF file; see export_merged.h.
 *
 *   "GGUF" | version:u32 | n_tensors:u64 | n_keys:u64 | the base's keys | directory | data
 *
 * Keys are copied as bytes, the tokenizer among them.  The alignment is the base's, for its key
 * says so.
 */
#include "merge.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <stdlib.h>

enum { GGUF_VERSION = 3, HEADER_BYTES = 4 + 4 + 8 + 8, LINE_BYTES = 8 + 4 + 4 + 8 };

/* The key that says which type most tensors have goes where that is not so any more. */
static bool is_kept(const pd_merge *x, pd_str key) {
    static const char type[] = "general.file_type";
    if (key.n != sizeof type - 1 || memcmp(key.p, type, key.n) != 0)
        return true;
    for (size_t i = 0; i < x->n; i++)
        if (x->at[i].type != x->at[i].t->type)
            return false;
    return true;
}

static uint64_t aligned(uint64_t at, uint64_t align) {
    return (at + align - 1) / align * align;
}

static size_t head_bytes(const pd_merge *x, uint64_t align) {
    size_t n = HEADER_BYTES;
    pd_str name;
    for (size_t i = 0; i < pd_gguf_keys(x->base); i++)
        n += pd_gguf_key_at(x->base, i, &name).n;
    for (size_t i = 0; i < x->n; i++)
        n += LINE_BYTES + strlen(x->at[i].t->name) + 8 * x->at[i].t->n_dims;
    return n + align;
}

static void put_head(const pd_merge *x, uint64_t align, pd_writer *w) {
    const uint8_t *start = w->p;
    uint64_t n_keys = 0, at = 0;
    pd_str name;
    for (size_t i = 0; i < pd_gguf_keys(x->base); i++) {
        (void)pd_gguf_key_at(x->base, i, &name);
        n_keys += is_kept(x, name);
    }
    pd_put_bytes(w, "GGUF", 4);
    pd_put_u32(w, GGUF_VERSION);
    pd_put_u64(w, x->n);
    pd_put_u64(w, n_keys);
    for (size_t i = 0; i < pd_gguf_keys(x->base); i++) {
        pd_str raw = pd_gguf_key_at(x->base, i, &name);
        if (is_kept(x, name))
            pd_put_bytes(w, raw.p, raw.n);
    }
    for (size_t i = 0; i < x->n; i++) {
        const pd_tensor *t = x->at[i].t;
        pd_put_u64(w, strlen(t->name));
        pd_put_bytes(w, t->name, strlen(t->name));
        pd_put_u32(w, t->n_dims);
        for (uint32_t d = 0; d < t->n_dims; d++)
            pd_put_u64(w, t->shape[d]);
        pd_put_u32(w, x->at[i].type);
        pd_put_u64(w, at);
        at = aligned(at + pd_merge_bytes(&x->at[i]), align);
    }
    while ((uint64_t)(w->p - start) % align)
        pd_put_u8(w, 0);
    assert(w->ok);
}

static pd_err write_head(const pd_merge *x, uint64_t align, pd_file_out *f) {
    size_t room = head_bytes(x, align);
    uint8_t *p = malloc(room);
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for a header of %zu bytes", room);
    pd_writer w = pd_writer_of(p, room);
    put_head(x, align, &w);
    pd_err e = pd_file_append(f, p, (size_t)(w.p - p));
    free(p);
    return e;
}

static pd_err write_all(pd_merge *x, pd_file_out *f) {
    uint64_t align = 32;
    (void)pd_gguf_u64(x->base, "general.alignment", &align);
    uint8_t *zeros = calloc(1, align);
    pd_err e = zeros ? write_head(x, align, f) : pd_fail(PD_ENOMEM, "no memory for an alignment");
    for (size_t i = 0; i < x->n && !e; i++) {
        size_t n = pd_merge_bytes(&x->at[i]);
        e = pd_merge_put(x, &x->at[i], f);
        if (!e)
            e = pd_file_append(f, zeros, (size_t)(aligned(n, align) - n));
    }
    free(zeros);
    return e;
}

pd_err pd_export_merged_gguf(const char *path, const pd_merged *m) {
    pd_merge x;
    pd_file_out *f = NULL;
    pd_err e = pd_merge_vacant(path);
    if (e)
        return e;
    e = pd_merge_open(m, &x);
    if (!e)
        e = pd_file_begin(path, 0644, &f);
    if (!e)
        e = write_all(&x, f);
    pd_merge_close(&x);
    if (e) {
        pd_file_drop(f);
        return e;
    }
    return pd_file_commit(f);
}
