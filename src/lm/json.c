/* json.c - see json.h. */
#include "json.h"
#include "peerd/file.h"

#include <stdlib.h>
#include <string.h>

/* Where the escape of U+0000 stands: a backslash that is not itself escaped, then u0000. */
static bool has_nul(const char *p, size_t n) {
    for (const char *end = p + n, *hit; (hit = memmem(p, (size_t)(end - p), "\\u0000", 6)) != NULL;
         p = hit + 6) {
        size_t before = 0;
        while (hit - before > p && hit[-1 - (ptrdiff_t)before] == '\\')
            before++;
        if (before % 2 == 0)
            return true;
    }
    return false;
}

/* p[n] is 0 and belongs to the text: cJSON wants an end that it can see. */
static pd_err parse(const char *p, size_t n, const char *what, cJSON **out) {
    const char *end = NULL;
    if (memchr(p, 0, n) || has_nul(p, n))
        return pd_fail(PD_EFORMAT, "%s holds a NUL character", what);
    cJSON *tree = cJSON_ParseWithLengthOpts(p, n + 1, &end, 1);
    if (!tree)
        return pd_fail(PD_EFORMAT, "%s is not JSON (from byte %zu on): fetch it again", what,
                       end ? (size_t)(end - p) : 0);
    if (!cJSON_IsObject(tree)) {
        cJSON_Delete(tree);
        return pd_fail(PD_EFORMAT, "%s is not a JSON object", what);
    }
    *out = tree;
    return PD_OK;
}

pd_err json_parse(const char *p, size_t n, const char *what, cJSON **out) {
    char *copy = malloc(n + 1);
    if (!copy)
        return pd_fail(PD_ENOMEM, "no memory for %s", what);
    if (n)
        memcpy(copy, p, n);
    copy[n] = 0;
    pd_err e = parse(copy, n, what, out);
    free(copy);
    return e;
}

pd_err json_read(const char *path, size_t max, cJSON **out) {
    uint8_t *p;
    size_t n;
    pd_err e = pd_file_read(path, max, &p, &n);
    if (e)
        return e;
    e = parse((const char *)p, n, "the file", out);
    free(p);
    return e ? pd_fail_in(e, "%s", path) : PD_OK;
}

const cJSON *json_at(const cJSON *object, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(v) ? NULL : v;
}

const char *json_text(const cJSON *object, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

bool json_true(const cJSON *object, const char *key) {
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

bool json_count(const cJSON *v, uint64_t *out) {
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= 0x1p53) ||
        v->valuedouble != (double)(uint64_t)v->valuedouble)
        return false;
    *out = (uint64_t)v->valuedouble;
    return true;
}
