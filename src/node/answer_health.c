/* answer_health.c - the control socket's `health`: what `peerctl doctor` judges and `status` does
 * not show, as it stands, without looking for it.  What takes long is in `check`. */
#include "answer.h"
#include "json.h"
#include "peerd/file.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- this machine ---- */

static void add_bytes(cJSON *reply, const char *field, const char *path, const char *name) {
    uint64_t v;
    if (pd_proc_bytes(path, name, &v))
        pd_json_count(reply, field, v);
    else
        cJSON_AddNullToObject(reply, field);
}

/* Processors that this process may run on. */
static unsigned cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

static void add_machine(const pd_node *n, cJSON *reply) {
    double load = NAN;
    unsigned here = cores();
    if (getloadavg(&load, 1) != 1)
        load = NAN;
    add_bytes(reply, "memory_bytes", "/proc/self/status", "VmRSS");
    add_bytes(reply, "swapped_bytes", "/proc/self/status", "VmSwap");
    add_bytes(reply, "memory_free_bytes", "/proc/meminfo", "MemAvailable");
    add_bytes(reply, "memory_total_bytes", "/proc/meminfo", "MemTotal");
    pd_json_count(reply, "cores", here);
    pd_json_count(reply, "threads", n->site->config.threads ? n->site->config.threads : here);
    pd_json_real(reply, "load", load);
}

/* ---- clock: only the expiry of invites depends on it ---- */

static void add_clock(const pd_node *n, cJSON *reply) {
    struct stat st;
    char path[PD_CONFIG_PATH + 16];
    uint32_t expiring = 0;
    for (uint32_t i = 0; i < n->site->n_invites; i++)
        expiring += n->site->invites[i].uses && n->site->invites[i].expires_s;
    cJSON_AddNumberToObject(reply, "wall_s", (double)pd_wall_s());
    if (pd_path_join(path, sizeof path, n->site->dir, "manifest") == PD_OK && stat(path, &st) == 0)
        cJSON_AddNumberToObject(reply, "made_s", (double)st.st_mtime);
    else
        cJSON_AddNullToObject(reply, "made_s");
    pd_json_count(reply, "expiring_invites", expiring);
}

/* ---- the rest ---- */

static void add_door(const pd_node *n, uint64_t now, cJSON *reply) {
    const pd_watch *w = &n->watch;
    pd_net_stats s;
    pd_net_stats_get(n->net, &s);
    pd_json_count(reply, "files", s.files);
    pd_json_count(reply, "files_max", s.files_max);
    cJSON_AddBoolToObject(reply, "door_open", s.listening);
    pd_json_count(reply, "handshakes_refused", s.refused);
    if (w->called_ms)
        pd_json_count(reply, "called_ago_ms", now - w->called_ms);
    else
        cJSON_AddNullToObject(reply, "called_ago_ms");
    pd_json_addr(reply, "called_from", &w->called_from);
    cJSON_AddBoolToObject(reply, "solo", n->opts.solo);
}

static void add_training(const pd_node *n, uint64_t now, cJSON *reply) {
    pd_trainer_status t;
    pd_trainer_status_get(n->trainer, &t);
    cJSON_AddStringToObject(reply, "trainer", pd_trainer_state_names[t.state]);
    pd_json_count(reply, "not_finite", t.not_finite);
    pd_json_count(reply, "made", t.made);
    pd_json_real(reply, "heldout_best", t.held_first.units ? t.held_best : (double)NAN);
    if (n->watch.sealed_ms)
        pd_json_count(reply, "sealed_ago_ms", now - n->watch.sealed_ms);
    else
        cJSON_AddNullToObject(reply, "sealed_ago_ms");
}

pd_err pd_answer_health(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    const pd_node *n = ctx;
    uint64_t now = pd_clock_ms();
    add_machine(n, reply);
    add_clock(n, reply);
    add_door(n, now, reply);
    add_training(n, now, reply);
    return PD_OK;
}
