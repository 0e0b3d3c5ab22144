/* answer_status.c - the control socket's `status`, and the rates that it shows. */
#include "answer.h"
#include "peerd/file.h"

#include <math.h>
#include <unistd.h>

enum {
    MEASURE_MS = 1000,
    SMOOTH_MS = 10000, /* rates forget with this time */
    /* Around a frame on the wire: ZeroMQ's CURVE message (flags and size 2, name 8, nonce 8, tag
     * 16, flags 1), IPv4 and TCP with time stamps 52, and an acknowledgement of 52 for every other
     * segment. */
    FRAME_OVERHEAD = 35 + 52 + 26,
};

/* ---- rates ---- */

static void measure(pd_rate *r, uint64_t now, uint64_t in, uint64_t out) {
    if (r->at_ms && now > r->at_ms) {
        double ms = (double)(now - r->at_ms), share = ms / (ms + SMOOTH_MS);
        r->in_per_s += share * ((double)(in - r->bytes_in) * 1000 / ms - r->in_per_s);
        r->out_per_s += share * ((double)(out - r->bytes_out) * 1000 / ms - r->out_per_s);
    }
    r->at_ms = now;
    r->bytes_in = in;
    r->bytes_out = out;
}

void pd_answer_rates(pd_node *n) {
    uint64_t now = pd_clock_ms();
    if (now - n->rate.at_ms < MEASURE_MS)
        return;
    pd_core_status s;
    pd_peer_status p;
    pd_core_status_get(n->core, now, &s);
    measure(&n->rate, now, s.bytes_in, s.bytes_out);
    for (uint32_t i = 0; i < PD_MEMBERS_MAX && pd_core_peer_get(n->core, now, i, &p); i++)
        measure(&n->peer_rate[i], now, p.bytes_in, p.bytes_out);
}

/* ---- small pieces of JSON ---- */

static void add_hex(cJSON *j, const char *name, const uint8_t *p, size_t n) {
    char text[2 * PD_KEY_BYTES + 1];
    pd_hex(p, n, text);
    cJSON_AddStringToObject(j, name, text);
}

static void add_count(cJSON *j, const char *name, uint64_t v) {
    cJSON_AddNumberToObject(j, name, (double)v);
}

/* null where it is not finite. */
static void add_real(cJSON *j, const char *name, double v) {
    if (isfinite(v))
        cJSON_AddNumberToObject(j, name, v);
    else
        cJSON_AddNullToObject(j, name);
}

static void add_addr(cJSON *j, const char *name, const pd_addr *a) {
    char text[PD_ADDR_TEXT];
    if (!a->family) {
        cJSON_AddNullToObject(j, name);
        return;
    }
    pd_addr_print(a, text);
    cJSON_AddStringToObject(j, name, text);
}

/* ---- parts of the reply ---- */

static void add_run(const pd_site *s, cJSON *reply) {
    add_hex(reply, "run", s->run, 32);
    add_hex(reply, "key", s->identity.pub, 32);
    cJSON_AddStringToObject(reply, "name", s->config.name);
    cJSON_AddStringToObject(reply, "dir", s->dir);
    cJSON_AddStringToObject(reply, "version", PD_VERSION);
    cJSON *model = cJSON_AddObjectToObject(reply, "model");
    cJSON_AddStringToObject(model, "name", s->manifest.model_name);
    cJSON_AddStringToObject(model, "arch", s->manifest.model_arch);
    cJSON *space = cJSON_AddObjectToObject(reply, "space");
    cJSON_AddStringToObject(space, "kind",
                            s->manifest.space == PD_SPACE_ALIGNED ? "aligned" : "lora");
    add_count(space, "rank", s->manifest.rank);
    add_count(space, "coords", s->manifest.n_coords);
    cJSON_AddStringToObject(reply, "rule", "sum");
}

/* What a person should read first: does it speak, and if not, why. */
static const char *state_of(const pd_node *n, const pd_core_status *c, const pd_trainer_status *t,
                            const char **why) {
    *why = c->why;
    if (n->stopping || c->voice == PD_VOICE_STOPPING)
        return "stopping";
    if (c->voice == PD_VOICE_SILENCED)
        return "silenced";
    if (t->state == PD_TRAINER_PAUSED) {
        *why = "paused by hand (go on with: peerctl resume)";
        return "paused";
    }
    if (t->state == PD_TRAINER_STOPPED) {
        *why = "its held-out loss rose for long, or training failed: see the log (peerctl resume "
               "lets it speak again)";
        return "silenced";
    }
    if (c->voice == PD_VOICE_LISTENING)
        return "listening";
    if (t->state == PD_TRAINER_DONE) {
        *why = "all the records it was asked for are made; it holds and relays";
        return "done";
    }
    if (t->state == PD_TRAINER_STARTING)
        *why = "measuring the held-out loss first";
    return "speaking";
}

static void add_state(const pd_node *n, const pd_core_status *c, const pd_trainer_status *t,
                      cJSON *reply) {
    const char *why;
    cJSON_AddStringToObject(reply, "state", state_of(n, c, t, &why));
    cJSON_AddStringToObject(reply, "why", why);
    add_count(reply, "step", c->step);
    if (n->opts.records == UINT64_MAX)
        cJSON_AddNullToObject(reply, "records_wanted");
    else
        add_count(reply, "records_wanted", n->opts.records);
    add_count(reply, "unsealed", c->unsealed);
    add_count(reply, "unsealed_age_ms", c->unsealed_ms);
    add_count(reply, "seal_ms", c->seal_ms);
    add_real(reply, "loss", t->loss);
}

static void add_heldout(const pd_site *s, const pd_trainer_status *t, cJSON *reply) {
    const pd_loss *first = &t->held_first, *now = &t->held_now;
    if (!first->units) {
        cJSON_AddNullToObject(reply, "heldout");
        return;
    }
    cJSON *h = cJSON_AddObjectToObject(reply, "heldout");
    add_count(h, "examples", pd_site_held(s).n);
    add_real(h, "loss_before", pd_loss_mean(first));
    add_real(h, "loss_now", pd_loss_mean(now));
    add_real(h, "accuracy_before",
             first->choices ? (double)first->correct / (double)first->choices : (double)NAN);
    add_real(h, "accuracy_now",
             now->choices ? (double)now->correct / (double)now->choices : (double)NAN);
    add_count(h, "at_records", t->held_at);
}

static void add_traffic(const pd_node *n, const pd_core_status *c, cJSON *reply) {
    uint64_t held = pd_ledger_records(n->site->ledger),
             news = held > n->records_before ? held - n->records_before : 0;
    double wire = (double)(c->bytes_in + c->bytes_out) +
                  FRAME_OVERHEAD * (double)(c->frames_in + c->frames_out);
    pd_addr listen = pd_net_listening(n->net);
    add_count(reply, "records", c->records);
    add_count(reply, "missing", c->missing);
    add_count(reply, "void_records", c->voids);
    add_count(reply, "forks", c->forks);
    add_count(reply, "banned", c->banned);
    add_count(reply, "members", c->members);
    add_count(reply, "links", c->links);
    add_count(reply, "bytes_in", c->bytes_in);
    add_count(reply, "bytes_out", c->bytes_out);
    add_real(reply, "bytes_in_per_s", n->rate.in_per_s);
    add_real(reply, "bytes_out_per_s", n->rate.out_per_s);
    add_real(reply, "wire_bytes_per_record", news ? wire / (double)news : (double)NAN);
    add_addr(reply, "listen", &listen);
    add_count(reply, "bad_frames", c->bad_frames);
    add_count(reply, "bad_seals", c->bad_seals);
    add_count(reply, "duplicates", c->duplicates);
    if (c->fetch_total) {
        add_count(reply, "fetched_bytes", c->fetched);
        add_count(reply, "fetch_total_bytes", c->fetch_total);
    } else {
        cJSON_AddNullToObject(reply, "fetched_bytes");
        cJSON_AddNullToObject(reply, "fetch_total_bytes");
    }
}

static cJSON *peer(const pd_peer_status *p, const pd_rate *rate) {
    static const char *const members[] = {"here", "away", "gone", "left", "banned"};
    static const char *const links[] = {"none", "dialing", "up", "suspect"};
    cJSON *j = cJSON_CreateObject();
    add_hex(j, "key", p->key, 32);
    cJSON_AddStringToObject(j, "name", p->name);
    add_addr(j, "addr", &p->addr);
    cJSON_AddStringToObject(j, "member", members[p->member]);
    cJSON_AddStringToObject(j, "link", links[p->link]);
    cJSON_AddBoolToObject(j, "outbound", p->outbound);
    add_count(j, "records", p->records);
    add_count(j, "void_records", p->voids);
    cJSON_AddNumberToObject(j, "score", p->score);
    add_count(j, "missing", p->missing);
    add_count(j, "behind", p->behind);
    add_count(j, "bytes_in", p->bytes_in);
    add_count(j, "bytes_out", p->bytes_out);
    add_real(j, "bytes_in_per_s", rate->in_per_s);
    add_real(j, "bytes_out_per_s", rate->out_per_s);
    add_count(j, "rtt_ms", p->rtt_ms);
    add_count(j, "quiet_ms", p->quiet_ms);
    return j;
}

pd_err pd_answer_status(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    pd_node *n = ctx;
    uint64_t now = pd_clock_ms();
    pd_core_status c;
    pd_trainer_status t;
    pd_peer_status p;
    pd_core_status_get(n->core, now, &c);
    pd_trainer_status_get(n->trainer, &t);
    add_run(n->site, reply);
    add_count(reply, "pid", (uint64_t)getpid());
    add_count(reply, "uptime_s", (now - n->started_ms) / 1000);
    add_state(n, &c, &t, reply);
    add_heldout(n->site, &t, reply);
    add_traffic(n, &c, reply);
    add_hex(reply, "digest", t.digest, PD_DIGEST_BYTES);
    add_count(reply, "digest_records", t.records);
    cJSON *peers = cJSON_AddArrayToObject(reply, "peers");
    for (uint32_t i = 0; i < PD_MEMBERS_MAX && pd_core_peer_get(n->core, now, i, &p); i++)
        cJSON_AddItemToArray(peers, peer(&p, &n->peer_rate[i]));
    return PD_OK;
}
