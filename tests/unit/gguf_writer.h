/* gguf_writer.h - small GGUF files for tests: keys first, then tensors, then gw_save().
 *
 * It writes what it is told, sound or not, so that hostile files are made with the same few calls.
 */
#ifndef PD_GGUF_WRITER_H
#define PD_GGUF_WRITER_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct gw_buf {
    uint8_t *p;
    size_t n, room;
} gw_buf;

typedef struct gw {
    uint32_t version;
    uint64_t n_keys, n_tensors;
    uint32_t align;
    gw_buf keys, list, data;
} gw;

static inline void gw_put(gw_buf *b, const void *p, size_t n) {
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->room);
        assert(b->p);
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static inline void gw_int(gw_buf *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) {
        uint8_t c = (uint8_t)(v >> 8 * i);
        gw_put(b, &c, 1);
    }
}

static inline void gw_text(gw_buf *b, const char *s) {
    gw_int(b, strlen(s), 8);
    gw_put(b, s, strlen(s));
}

static inline gw gw_new(void) {
    return (gw){.version = 3, .align = 32};
}

static inline void gw_key(gw *w, const char *name, uint32_t type) {
    gw_text(&w->keys, name);
    gw_int(&w->keys, type, 4);
    w->n_keys++;
}

static inline void gw_u32(gw *w, const char *name, uint32_t v) {
    gw_key(w, name, 4);
    gw_int(&w->keys, v, 4);
}

static inline void gw_f32(gw *w, const char *name, float v) {
    gw_key(w, name, 6);
    gw_put(&w->keys, &v, 4);
}

static inline void gw_bool(gw *w, const char *name, int v) {
    gw_key(w, name, 7);
    gw_int(&w->keys, (uint64_t)v, 1);
}

static inline void gw_str(gw *w, const char *name, const char *v) {
    gw_key(w, name, 8);
    gw_text(&w->keys, v);
}

static inline void gw_strs(gw *w, const char *name, const char *const *v, size_t n) {
    gw_key(w, name, 9);
    gw_int(&w->keys, 8, 4);
    gw_int(&w->keys, n, 8);
    for (size_t i = 0; i < n; i++)
        gw_text(&w->keys, v[i]);
}

static inline void gw_i32s(gw *w, const char *name, const int32_t *v, size_t n) {
    gw_key(w, name, 9);
    gw_int(&w->keys, 5, 4);
    gw_int(&w->keys, n, 8);
    gw_put(&w->keys, v, 4 * n);
}

static inline void gw_f32s(gw *w, const char *name, const float *v, size_t n) {
    gw_key(w, name, 9);
    gw_int(&w->keys, 6, 4);
    gw_int(&w->keys, n, 8);
    gw_put(&w->keys, v, 4 * n);
}

/* A directory line alone, at any offset. */
static inline void gw_list(gw *w, const char *name, uint32_t type, uint32_t n_dims,
                           const uint64_t *dims, uint64_t offset) {
    gw_text(&w->list, name);
    gw_int(&w->list, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++)
        gw_int(&w->list, dims[i], 8);
    gw_int(&w->list, type, 4);
    gw_int(&w->list, offset, 8);
    w->n_tensors++;
}

static inline void gw_pad(gw_buf *b, uint32_t align) {
    while (b->n % align)
        gw_int(b, 0, 1);
}

/* A tensor and its bytes; dims fastest first. */
static inline void gw_tensor(gw *w, const char *name, uint32_t type, uint32_t n_dims,
                             const uint64_t *dims, const void *p, size_t n) {
    gw_pad(&w->data, w->align);
    gw_list(w, name, type, n_dims, dims, w->data.n);
    gw_put(&w->data, p, n);
}

/* The file's bytes; the writer is spent. */
static inline gw_buf gw_finish(gw *w) {
    gw_buf b = {0};
    gw_put(&b, "GGUF", 4);
    gw_int(&b, w->version, 4);
    gw_int(&b, w->n_tensors, 8);
    gw_int(&b, w->n_keys, 8);
    gw_put(&b, w->keys.p, w->keys.n);
    gw_put(&b, w->list.p, w->list.n);
    gw_pad(&b, w->align);
    gw_put(&b, w->data.p, w->data.n);
    free(w->keys.p);
    free(w->list.p);
    free(w->data.p);
    *w = (gw){0};
    return b;
}

static inline void gw_write(const char *path, const void *p, size_t n) {
    FILE *f = fopen(path, "wb");
    assert(f);
    size_t put = n ? fwrite(p, 1, n, f) : 0;
    assert(put == n && fclose(f) == 0);
    (void)put;
}

static inline void gw_save(gw *w, const char *path) {
    gw_buf b = gw_finish(w);
    gw_write(path, b.p, b.n);
    free(b.p);
}

#endif
