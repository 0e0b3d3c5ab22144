/* cmd_run.c - peerd run: train and gossip until stopped. */
#include "catchup.h"
#include "cmd.h"
#include "history.h"
#include "node.h"
#include "peerd/flags.h"
#include "peerd/log.h"

#include <stdio.h>

static const pd_command_help help = {
    .usage = "peerd run DIR",
    .what = "Train and gossip until stopped (SIGTERM or Ctrl-C: seal, store, say goodbye).",
    .example = "peerd run ./site-a --records 1000"};

/* What is to be otherwise this time than the node's settings say; 0 and NULL: as they say. */
typedef struct once {
    uint32_t batch, probes, local_steps;
    const char *estimator;
} once;

static pd_err set_once(const once *o, pd_config *c) {
    c->batch = o->batch ? o->batch : c->batch;
    pd_estimator was = c->estimator;
    pd_err e = o->estimator ? pd_estimator_parse(o->estimator, &c->estimator) : PD_OK;
    if (o->probes || c->estimator != was)
        c->probes = o->probes ? o->probes : pd_estimator_probes(c->estimator);
    c->local_steps = o->local_steps ? o->local_steps : c->local_steps;
    return e;
}

/* The model is opened for reverse mode where this node's bytes come from gradients. */
static pd_err open_site(const char *dir, const once *o, pd_site_opts *opts, pd_site *out) {
    pd_config c;
    pd_err e = pd_config_read(dir, &c);
    if (!e)
        e = set_once(o, &c);
    if (e)
        return e;
    opts->backward = pd_config_projects(&c);
    e = pd_site_open(dir, PD_SITE_DATA, opts, out);
    return e ? e : set_once(o, &out->config);
}

int pd_cmd_run(int argc, char **argv) {
    pd_run_opts o = {.records = UINT64_MAX};
    const char *dir, *how = "auto";
    pd_catch_up wish = PD_CATCH_UP_AUTO;
    bool verbose = false, asked;
    uint32_t threads = UINT32_MAX;
    once this_time = {0};
    size_t n;
    const pd_flag flags[] = {
        {"records", 0, PD_FLAG_U64, &o.records, 0, 1e15, "N",
         "own records to make in all, 0: only relay (default: no end)"},
        {"until-records", 0, PD_FLAG_U64, &o.until_records, 1, 1e15, "N",
         "stop when so many of everyone are held"},
        {"until-idle", 0, PD_FLAG_U32, &o.until_idle_s, 1, 86400, "S",
         "stop when own records are made and nothing came for S seconds"},
        {"solo", 0, PD_FLAG_SWITCH, &o.solo, 0, 0, NULL,
         "alone: no network, no waiting for others"},
        {"seal-records", 0, PD_FLAG_U32, &o.seal_records, 1, PD_PENDING_MAX, "N",
         "seal at so many (default: by time)"},
        {"seal-ms", 0, PD_FLAG_U32, &o.seal_ms, 100, 900000, "MS",
         "seal after (default: from the run's budget)"},
        {"batch", 0, PD_FLAG_U32, &this_time.batch, 1, 4096, "N",
         "records a probe or local step, this time"},
        {"estimator", 0, PD_FLAG_TEXT, &this_time.estimator, 0, 0, "KIND",
         "probe or project, this time"},
        {"probes", 0, PD_FLAG_U32, &this_time.probes, 1, 4096, "K",
         "directions a batch, this time"},
        {"local-steps", 0, PD_FLAG_U32, &this_time.local_steps, 1, 4096, "E",
         "batches a gradient, this time"},
        {"threads", 0, PD_FLAG_U32, &threads, 0, 1024, "N", "cores, this time"},
        {"catch-up", 0, PD_FLAG_TEXT, &how, 0, 0, "HOW",
         "replay: forget the checkpoint that this node began with, if it is not audited yet"},
        {"quiet", 'q', PD_FLAG_SWITCH, &o.quiet, 0, 0, NULL, "no progress line"},
        {"verbose", 'v', PD_FLAG_SWITCH, &verbose, 0, 0, NULL, "more log lines"},
        {.name = NULL}};
    pd_site site;
    pd_site_opts opts = pd_site_as_set;
    pd_err e = pd_flags_parse(argc, argv, flags, &dir, 1, 1, &n, &asked);
    if (!e && asked) {
        pd_flags_help(&help, flags);
        return 0;
    }
    if (!e)
        e = pd_catch_up_parse(how, &wish);
    if (!e && wish == PD_CATCH_UP_CHECKPOINT)
        e = pd_fail(PD_EUSAGE, "a node begins with a checkpoint when it joins: peerd join "
                               "--catch-up checkpoint");
    if (!e && verbose)
        pd_log_set(PD_LOG_DEBUG);
    if (!e && pd_control_runs(dir))
        e = pd_fail(PD_EBUSY, "a peerd runs on %s already (see: peerctl -d %s status)", dir, dir);
    opts.threads = threads;
    pd_node_hold_signals();
    pd_history_start();
    if (!e)
        e = open_site(dir, &this_time, &opts, &site);
    if (e) {
        fprintf(stderr, "peerd run: %s\n", pd_fail_text());
        return pd_err_exit(e);
    }
    if (wish == PD_CATCH_UP_REPLAY && site.begun.state == PD_AUDIT_OPEN)
        e = pd_site_forget_checkpoint(&site);
    if (e) {
        fprintf(stderr, "peerd run: %s\n", pd_fail_text());
        pd_site_close(&site);
        return pd_err_exit(e);
    }
    if (site.config.observer && o.records && o.records != UINT64_MAX) {
        fprintf(stderr,
                "peerd run: %s is an observer and makes no records: run it without --records\n",
                dir);
        pd_site_close(&site);
        return pd_err_exit(PD_EUSAGE);
    }
    int status = pd_node_run(&site, &o);
    pd_site_close(&site);
    return status;
}
