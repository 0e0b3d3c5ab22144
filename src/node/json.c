/* json.c - small pieces of the control socket's replies; see json.h. */
#include "json.h"
#include "peerd/bytes.h"

#include <assert.h>
#include <math.h>

void pd_json_hex(cJSON *j, const char *name, const uint8_t *p, size_t n) {
    char text[2 * 32 + 1];
    assert(n <= 32);
    pd_hex(p, n, text);
    cJSON_AddStringToObject(j, name, text);
}

void pd_json_count(cJSON *j, const char *name, uint64_t v) {
    cJSON_AddNumberToObject(j, name, (double)v);
}

void pd_json_real(cJSON *j, const char *name, double v) {
    if (isfinite(v))
        cJSON_AddNumberToObject(j, name, v);
    else
        cJSON_AddNullToObject(j, name);
}

void pd_json_addr(cJSON *j, const char *name, const pd_addr *a) {
    char text[PD_ADDR_TEXT];
    if (!a->family) {
        cJSON_AddNullToObject(j, name);
        return;
    }
    pd_addr_print(a, text);
    cJSON_AddStringToObject(j, name, text);
}

bool pd_json_whole(const cJSON *request, const char *name, double least, double most, double *out) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(request, name);
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= least && v->valuedouble <= most) ||
        v->valuedouble != floor(v->valuedouble))
        return false;
    *out = v->valuedouble;
    return true;
}
