/* folder.h - a reader of the folders that make_families.py writes, as plain as can be: one file of
 * safetensors in bfloat16, its names by a table.  It shows that the engine packs from any reader,
 * and gives it the families that GGUF has no word for.
 *
 *   header bytes:u64 | {"NAME": {"shape": [..], "data_offsets": [from, to]}} | data
 */
#ifndef PD_FOLDER_H
#define PD_FOLDER_H

#include "peerd/weights.h"

#include <check.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct folder {
    pd_weights base;
    const char *const *names; /* by role, with %u for the layer; NULL where the family has none */
    uint32_t skip;            /* first rows of the positions that are nobody's */
    char *file;
    size_t head; /* where the data begins */
    cJSON *tensors;
} folder;

static inline pd_err folder_read(const pd_weights *w, pd_slot s, uint32_t first, uint32_t rows,
                                 float *out) {
    const folder *f = (const folder *)w;
    uint32_t all, cols;
    char format[96], name[128];
    ck_assert(pd_slot_shape(&w->info, s, &all, &cols));
    snprintf(format, sizeof format, "%s.%s", f->names[s.role], s.bias ? "bias" : "weight");
    char *mark = strstr(format, "%u");
    if (mark)
        snprintf(name, sizeof name, "%.*s%u%s", (int)(mark - format), format, s.layer, mark + 2);
    else
        snprintf(name, sizeof name, "%s", format);
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(f->tensors, name);
    ck_assert_msg(t != NULL, "no tensor %s", name);
    if (s.role == PD_ROLE_POSITIONS)
        first += f->skip;
    double at = cJSON_GetArrayItem(cJSON_GetObjectItem(t, "data_offsets"), 0)->valuedouble;
    const char *from = f->file + f->head + (size_t)at + (size_t)first * cols * 2;
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, 2);
        uint32_t u = (uint32_t)h << 16;
        memcpy(&out[i], &u, 4);
    }
    return PD_OK;
}

static inline void folder_close(pd_weights *w) {
    folder *f = (folder *)w;
    cJSON_Delete(f->tensors);
    free(f->file);
    free(f);
}

/* info and names are the caller's to know. */
static inline pd_weights *folder_open(const char *path, const pd_model_info *info,
                                      const char *const names[PD_ROLES], uint32_t skip) {
    folder *f = calloc(1, sizeof *f);
    FILE *in = fopen(path, "rb");
    ck_assert_msg(in != NULL, "cannot open %s", path);
    fseek(in, 0, SEEK_END);
    size_t n = (size_t)ftell(in);
    rewind(in);
    f->file = malloc(n);
    ck_assert_uint_eq(fread(f->file, 1, n, in), n);
    fclose(in);
    uint64_t head;
    memcpy(&head, f->file, 8);
    f->head = 8 + (size_t)head;
    f->tensors = cJSON_ParseWithLength(f->file + 8, (size_t)head);
    ck_assert_ptr_nonnull(f->tensors);
    f->base = (pd_weights){.info = *info, .read = folder_read, .close = folder_close};
    f->names = names;
    f->skip = skip;
    return &f->base;
}

#endif
