/* safetensors_writer.h - small safetensors files for tests: tensors, then sw_save(). */
#ifndef PD_SAFETENSORS_WRITER_H
#define PD_SAFETENSORS_WRITER_H

#include "gguf_writer.h"

typedef struct sw {
    gw_buf header, data;
} sw;

/* rows 0: a vector.  type: as the format spells it; bytes: of one element. */
static inline void sw_tensor(sw *w, const char *name, const char *type, uint64_t rows,
                             uint64_t cols, unsigned bytes, const void *p) {
    char line[256], shape[64];
    size_t n = (size_t)((rows ? rows : 1) * cols) * bytes;
    snprintf(shape, sizeof shape, rows ? "%llu,%llu" : "%.0llu%llu", (unsigned long long)rows,
             (unsigned long long)cols);
    snprintf(line, sizeof line,
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
             w->header.n ? "," : "{", name, type, shape, w->data.n, w->data.n + n);
    gw_put(&w->header, line, strlen(line));
    gw_put(&w->data, p, n);
}

/* The writer is spent. */
static inline void sw_save(sw *w, const char *path) {
    gw_buf b = {0};
    gw_put(&w->header, "}", 1);
    gw_int(&b, w->header.n, 8);
    gw_put(&b, w->header.p, w->header.n);
    gw_put(&b, w->data.p, w->data.n);
    gw_write(path, b.p, b.n);
    free(b.p);
    free(w->header.p);
    free(w->data.p);
    *w = (sw){0};
}

#endif
