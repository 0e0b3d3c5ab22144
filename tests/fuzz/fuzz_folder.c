/* fuzz_folder.c - a Hugging Face folder from anywhere: refused, or every tensor that its config
 * asks for can be read, to its last row.
 *
 * Input: config.json up to the first 0 byte | the header of model.safetensors.  Its data are zeros,
 * as many as the header's offsets reach, so that the search is spent on names, numbers and shapes.
 */
#include "read_weights.h"

#include "../../src/lm/hf.h"
#include "../unit/gguf_writer.h"

enum { DATA_MAX = 1 << 20 };

/* The end of the last tensor; 0 where the header is no object of objects. */
static size_t data_of(const uint8_t *header, size_t n) {
    const cJSON *tensor;
    double end = 0;
    cJSON *h = NULL;
    if (json_parse((const char *)header, n, "the header", &h) != PD_OK)
        return 0;
    cJSON_ArrayForEach(tensor, h) {
        const cJSON *last = cJSON_GetArrayItem(json_at(tensor, "data_offsets"), 1);
        if (cJSON_IsNumber(last) && last->valuedouble > end)
            end = last->valuedouble;
    }
    cJSON_Delete(h);
    return end < DATA_MAX ? (size_t)end : 0;
}

static pd_err open_tensors(const uint8_t *header, size_t n, pd_safetensors **out) {
    gw_buf file = {0};
    size_t data = data_of(header, n);
    uint8_t *zeros = calloc(data + 1, 1);
    FUZZ_CHECK(zeros != NULL);
    gw_int(&file, n, 8);
    gw_put(&file, header, n);
    gw_put(&file, zeros, data);
    const char *path = fuzz_file(file.p, file.n);
    free(zeros);
    free(file.p);
    return pd_safetensors_open(&path, 1, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    const uint8_t *end = n ? memchr(p, 0, n) : NULL;
    size_t size = end ? (size_t)(end - p) : n;
    cJSON *config = NULL;
    pd_safetensors *tensors = NULL;
    pd_weights *w = NULL;
    if (json_parse((const char *)p, size, "the file", &config) == PD_OK &&
        open_tensors(p + size + (end != NULL), n - size - (end != NULL), &tensors) == PD_OK &&
        hf_weights_open(config, tensors, &w) == PD_OK)
        fuzz_read_weights(w);
    pd_weights_close(w);
    pd_safetensors_close(tensors);
    cJSON_Delete(config);
    return 0;
}
