/* local.c - flags to settings; see local.h. */
#include "local.h"
#include "peerd/file.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

pd_local pd_local_of_defaults(void) {
    const pd_config *c = &pd_config_defaults;
    return (pd_local){.compute = "auto",
                      .estimator = pd_estimator_name(c->estimator),
                      .listen = "0.0.0.0:7433",
                      .heldout_share = c->heldout_share,
                      .batch = c->batch,
                      .batch_tokens = c->batch_tokens,
                      .local_steps = c->local_steps,
                      .seed = c->seed};
}

/* A number of probes that is the estimator's own is left to the estimator, which may become
 * another. */
pd_local pd_local_of_config(const pd_config *c) {
    bool usual = c->probes == pd_estimator_probes(c->estimator);
    return (pd_local){.data = c->data,
                      .heldout = c->heldout[0] ? c->heldout : NULL,
                      .listen = c->listen[0] ? c->listen : "none",
                      .advertise = c->advertise[0] ? c->advertise : NULL,
                      .name = c->name,
                      .compute = pd_compute_name(c->compute),
                      .estimator = pd_estimator_name(c->estimator),
                      .heldout_share = c->heldout_share,
                      .batch = c->batch,
                      .batch_tokens = c->batch_tokens,
                      .local_steps = c->local_steps,
                      .threads = c->threads,
                      .probes = usual ? 0 : c->probes,
                      .seed = c->seed,
                      .thin = c->thin,
                      .observer = c->observer,
                      .skip_bad = c->skip_bad};
}

static pd_err copy(const char *flag, const char *text, char *out, size_t room) {
    if (strlen(text) >= room)
        return pd_fail(PD_EUSAGE, "--%s is too long: %s", flag, text);
    strcpy(out, text);
    return PD_OK;
}

static void name_of(const char *dir, char out[PD_NAME_MAX + 1]) {
    char full[PATH_MAX], *base;
    if (strlen(dir) >= sizeof full)
        return;
    strcpy(full, dir);
    base = basename(full);
    snprintf(out, PD_NAME_MAX + 1, "%.*s", PD_NAME_MAX, base);
}

static pd_err check_addresses(pd_config *c) {
    pd_addr a;
    pd_err e = PD_OK;
    if (strcmp(c->listen, "none") == 0)
        c->listen[0] = 0;
    if (c->listen[0])
        e = pd_addr_parse(c->listen, true, &a);
    if (!e && c->advertise[0])
        e = pd_addr_parse(c->advertise, false, &a);
    return e;
}

pd_err pd_local_config(const pd_local *l, const char *dir, pd_config *out) {
    pd_config c = pd_config_defaults;
    if (!l->model || !l->data)
        return pd_fail(PD_EUSAGE, "--%s is missing", l->model ? "data" : "model");
    c.heldout_share = l->heldout_share;
    c.batch = l->batch;
    c.batch_tokens = l->batch_tokens;
    c.local_steps = l->local_steps;
    c.threads = l->threads;
    c.seed = l->seed;
    c.thin = l->thin;
    c.observer = l->observer;
    c.skip_bad = l->skip_bad;
    pd_err e = pd_compute_parse(l->compute, &c.compute);
    if (!e)
        e = pd_estimator_parse(l->estimator, &c.estimator);
    c.probes = l->probes ? l->probes : pd_estimator_probes(c.estimator);
    if (!e && c.estimator == PD_ESTIMATOR_PROBE && c.local_steps > 1)
        e = pd_fail(PD_EUSAGE,
                    "--local-steps are steps along a gradient: give --estimator project");
    if (!e)
        e = pd_path_absolute(l->model, c.model);
    if (!e)
        e = pd_path_absolute(l->data, c.data);
    if (!e && l->heldout)
        e = pd_path_absolute(l->heldout, c.heldout);
    if (!e)
        e = copy("listen", l->listen, c.listen, sizeof c.listen);
    if (!e && l->advertise)
        e = copy("advertise", l->advertise, c.advertise, sizeof c.advertise);
    if (!e && l->name)
        e = copy("name", l->name, c.name, sizeof c.name);
    if (!e && !l->name)
        name_of(dir, c.name);
    if (!e)
        e = check_addresses(&c);
    if (!e)
        *out = c;
    return e;
}
