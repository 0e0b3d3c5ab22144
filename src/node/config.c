/* config.c - a node's local settings as JSON; see config.h. */
#include "config.h"
#include "peerd/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

const pd_config pd_config_defaults = {
    .heldout_share = 0.1,
    .batch = 16,
    .batch_tokens = 1024,
    .probes = 1,
    .local_steps = 1,
    .compute = PD_COMPUTE_AUTO,
    .checkpoint_hours = 4,
    .seed = 1,
};

static const char *const compute_names[] = {"auto", "f32", "bf16"};

pd_err pd_compute_parse(const char *text, pd_compute *out) {
    for (int i = 0; i < 3; i++)
        if (strcmp(text, compute_names[i]) == 0) {
            *out = (pd_compute)i;
            return PD_OK;
        }
    return pd_fail(PD_EUSAGE, "unknown arithmetic '%s' (auto, f32 or bf16)", text);
}

const char *pd_compute_name(pd_compute c) {
    return compute_names[c];
}

static const char *const estimator_names[] = {"probe", "project"};

pd_err pd_estimator_parse(const char *text, pd_estimator *out) {
    for (int i = 0; i < 2; i++)
        if (strcmp(text, estimator_names[i]) == 0) {
            *out = (pd_estimator)i;
            return PD_OK;
        }
    return pd_fail(PD_EUSAGE, "unknown estimator '%s' (probe or project)", text);
}

const char *pd_estimator_name(pd_estimator e) {
    return estimator_names[e];
}

pd_err pd_path_absolute(const char *path, char out[PD_CONFIG_PATH]) {
    char full[PATH_MAX];
    if (!realpath(path, full))
        return pd_fail(errno == ENOENT ? PD_ENOENT : PD_EIO, "cannot open %s: %s", path,
                       strerror(errno));
    if (strlen(full) >= PD_CONFIG_PATH)
        return pd_fail(PD_EUSAGE, "path too long: %s", full);
    strcpy(out, full);
    return PD_OK;
}

/* ---- reading ---- */

/* Each getter leaves *bad at the first key that is missing or of another kind. */
static void get_text(const cJSON *j, const char *key, char *out, size_t room, const char **bad) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= room)
        *bad = *bad ? *bad : key;
    else
        strcpy(out, v->valuestring);
}

static double get_number(const cJSON *j, const char *key, double least, double most,
                         const char **bad) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= least && v->valuedouble <= most)) {
        *bad = *bad ? *bad : key;
        return least;
    }
    return v->valuedouble;
}

static bool get_bool(const cJSON *j, const char *key, const char **bad) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
    if (!cJSON_IsBool(v))
        *bad = *bad ? *bad : key;
    return cJSON_IsTrue(v);
}

/* Of a key that files of older versions lack. */
static bool has(const cJSON *j, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(j, key) != NULL;
}

static pd_err parse(const cJSON *j, const char *path, pd_config *c) {
    const char *bad = NULL;
    char compute[8] = "auto", estimator[12] = "probe";
    get_text(j, "model", c->model, sizeof c->model, &bad);
    get_text(j, "data", c->data, sizeof c->data, &bad);
    get_text(j, "heldout", c->heldout, sizeof c->heldout, &bad);
    get_text(j, "name", c->name, sizeof c->name, &bad);
    get_text(j, "listen", c->listen, sizeof c->listen, &bad);
    get_text(j, "advertise", c->advertise, sizeof c->advertise, &bad);
    get_text(j, "compute", compute, sizeof compute, &bad);
    c->heldout_share = get_number(j, "heldout_share", 0, 0.5, &bad);
    c->batch = (uint32_t)get_number(j, "batch", 1, 4096, &bad);
    c->batch_tokens = (uint32_t)get_number(j, "batch_tokens", 16, 65536, &bad);
    c->probes = (uint32_t)get_number(j, "probes", 1, 4096, &bad);
    c->threads = (uint32_t)get_number(j, "threads", 0, 1024, &bad);
    c->seed = (uint64_t)get_number(j, "seed", 0, 9007199254740992.0, &bad);
    c->thin = get_bool(j, "thin", &bad);
    c->observer = has(j, "observer") && get_bool(j, "observer", &bad);
    c->skip_bad = get_bool(j, "skip_bad", &bad);
    c->paused = get_bool(j, "paused", &bad);
    if (has(j, "checkpoint_hours"))
        c->checkpoint_hours = get_number(j, "checkpoint_hours", 0, 8760, &bad);
    if (has(j, "local_steps"))
        c->local_steps = (uint32_t)get_number(j, "local_steps", 1, 4096, &bad);
    if (has(j, "estimator"))
        get_text(j, "estimator", estimator, sizeof estimator, &bad);
    if (!bad && pd_estimator_parse(estimator, &c->estimator) != PD_OK)
        bad = "estimator";
    if (!bad && pd_compute_parse(compute, &c->compute) != PD_OK)
        bad = "compute";
    return bad ? pd_fail(PD_EFORMAT, "%s: `%s` is missing or not possible", path, bad) : PD_OK;
}

pd_err pd_config_read(const char *dir, pd_config *out) {
    char path[PD_CONFIG_PATH + 16];
    uint8_t *text;
    size_t n;
    pd_err e = pd_path_join(path, sizeof path, dir, "node.json");
    if (!e)
        e = pd_file_read(path, 65536, &text, &n);
    if (e == PD_ENOENT)
        return pd_fail(e, "%s is not a node's folder (make one with: peerd init, or peerd join)",
                       dir);
    if (e)
        return e;
    cJSON *j = cJSON_ParseWithLength((const char *)text, n);
    pd_config c = pd_config_defaults;
    e = j ? parse(j, path, &c) : pd_fail(PD_EFORMAT, "%s is not JSON", path);
    cJSON_Delete(j);
    free(text);
    if (!e)
        *out = c;
    return e;
}

pd_err pd_config_write(const char *dir, const pd_config *c) {
    char path[PD_CONFIG_PATH + 16];
    pd_err e = pd_path_join(path, sizeof path, dir, "node.json");
    if (e)
        return e;
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "model", c->model);
    cJSON_AddStringToObject(j, "data", c->data);
    cJSON_AddStringToObject(j, "heldout", c->heldout);
    cJSON_AddNumberToObject(j, "heldout_share", c->heldout_share);
    cJSON_AddStringToObject(j, "name", c->name);
    cJSON_AddStringToObject(j, "listen", c->listen);
    cJSON_AddStringToObject(j, "advertise", c->advertise);
    cJSON_AddNumberToObject(j, "batch", c->batch);
    cJSON_AddNumberToObject(j, "batch_tokens", c->batch_tokens);
    cJSON_AddNumberToObject(j, "probes", c->probes);
    cJSON_AddStringToObject(j, "estimator", pd_estimator_name(c->estimator));
    cJSON_AddNumberToObject(j, "local_steps", c->local_steps);
    cJSON_AddNumberToObject(j, "threads", c->threads);
    cJSON_AddStringToObject(j, "compute", pd_compute_name(c->compute));
    cJSON_AddBoolToObject(j, "thin", c->thin);
    cJSON_AddBoolToObject(j, "observer", c->observer);
    cJSON_AddBoolToObject(j, "skip_bad", c->skip_bad);
    cJSON_AddBoolToObject(j, "paused", c->paused);
    cJSON_AddNumberToObject(j, "checkpoint_hours", c->checkpoint_hours);
    char seed[24]; /* cJSON writes 15 digits of a number */
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)c->seed);
    cJSON_AddRawToObject(j, "seed", seed);
    char *text = cJSON_Print(j);
    cJSON_Delete(j);
    if (!text)
        return pd_fail(PD_ENOMEM, "no memory for %s", path);
    e = pd_file_replace(path, text, strlen(text), 0600);
    free(text);
    return e;
}
