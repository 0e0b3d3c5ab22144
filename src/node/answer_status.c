/* answer_status.c - the control socket's `status`. */
#include "answer.h"
#include "json.h"
#include "peerd/file.h"
#include "records.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PEERS_MOST = 1000, /* in a reply, the linked ones first; `members` has them all */
    /* Around a frame on the wire: ZeroMQ's CURVE message (flags and size 2, name 8, nonce 8, tag
     * 16, flags 1), IPv4 and TCP with time stamps 52, and an acknowledgement of 52 for every other
     * segment. */
    FRAME_OVERHEAD = 35 + 52 + 26,
};

/* ---- parts of the reply ---- */

static void add_run(const pd_site *s, cJSON *reply) {
    pd_json_hex(reply, "run", s->run, 32);
    pd_json_hex(reply, "key", s->identity.pub, 32);
    cJSON_AddStringToObject(reply, "name", s->config.name);
    cJSON_AddStringToObject(reply, "dir", s->dir);
    cJSON_AddStringToObject(reply, "version", PD_VERSION);
    cJSON *model = cJSON_AddObjectToObject(reply, "model");
    cJSON_AddStringToObject(model, "name", s->manifest.model_name);
    cJSON_AddStringToObject(model, "arch", s->manifest.model_arch);
    cJSON *space = cJSON_AddObjectToObject(reply, "space");
    cJSON_AddStringToObject(space, "kind", pd_space_names[s->manifest.space]);
    pd_json_count(space, "rank", s->manifest.rank);
    pd_json_count(space, "coords", s->manifest.n_coords);
    pd_json_count(space, "first_layer", s->manifest.first_layer);
    cJSON_AddStringToObject(reply, "rule", "sum");
    if (!pd_manifest_has_parent(&s->manifest))
        return;
    cJSON *parent = cJSON_AddObjectToObject(reply, "parent");
    pd_json_hex(parent, "run", s->manifest.parent_run, 32);
    pd_json_hex(parent, "digest", s->manifest.parent_digest, PD_DIGEST_BYTES);
    pd_json_count(parent, "records", s->manifest.parent_records);
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
    if (c->observer)
        return "observing";
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
    cJSON_AddBoolToObject(reply, "observer", c->observer);
    cJSON_AddBoolToObject(reply, "thin", n->site->config.thin);
    pd_json_count(reply, "step", c->step);
    if (n->opts.records == UINT64_MAX)
        cJSON_AddNullToObject(reply, "records_wanted");
    else
        pd_json_count(reply, "records_wanted", n->opts.records);
    pd_json_count(reply, "unsealed", c->unsealed);
    pd_json_count(reply, "unsealed_age_ms", c->unsealed_ms);
    pd_json_count(reply, "seal_ms", c->seal_ms);
    pd_json_count(reply, "listen_heard", c->heard);
    pd_json_count(reply, "listen_wanted", c->wanted);
    char trouble[PD_STORER_TEXT];
    pd_storer_trouble(n->storer, trouble);
    cJSON_AddStringToObject(reply, "store_error", trouble);
    pd_json_real(reply, "loss", t->loss);
}

static void add_heldout(const pd_site *s, const pd_trainer_status *t, cJSON *reply) {
    const pd_loss *first = &t->held_first, *now = &t->held_now;
    if (!first->units) {
        cJSON_AddNullToObject(reply, "heldout");
        return;
    }
    cJSON *h = cJSON_AddObjectToObject(reply, "heldout");
    pd_json_count(h, "examples", pd_site_held(s).n);
    pd_json_real(h, "loss_before", pd_loss_mean(first));
    pd_json_real(h, "loss_now", pd_loss_mean(now));
    pd_json_real(h, "accuracy_before",
                 first->choices ? (double)first->correct / (double)first->choices : (double)NAN);
    pd_json_real(h, "accuracy_now",
                 now->choices ? (double)now->correct / (double)now->choices : (double)NAN);
    pd_json_count(h, "at_records", t->held_at);
}

/* How often a byte of others came in: 1 where nothing came twice. */
static double copies(const pd_node *n, const pd_core_status *c) {
    uint64_t fresh = pd_records_foreign(n->site->ledger, n->site->identity.pub) - n->foreign_before;
    return fresh ? 1 + (double)c->duplicate_bytes / (double)fresh : (double)NAN;
}

static void add_traffic(const pd_node *n, const pd_core_status *c, cJSON *reply) {
    uint64_t held = pd_ledger_records(n->site->ledger),
             news = held > n->records_before ? held - n->records_before : 0;
    double wire = (double)(c->bytes_in + c->bytes_out) +
                  FRAME_OVERHEAD * (double)(c->frames_in + c->frames_out);
    pd_addr listen = pd_net_listening(n->net);
    pd_json_count(reply, "records", c->records);
    pd_json_count(reply, "missing", c->missing);
    pd_json_count(reply, "void_records", c->voids);
    pd_json_count(reply, "forks", c->forks);
    pd_json_count(reply, "banned", c->banned);
    pd_json_count(reply, "members", c->members);
    pd_json_count(reply, "links", c->links);
    pd_json_count(reply, "bytes_in", c->bytes_in);
    pd_json_count(reply, "bytes_out", c->bytes_out);
    pd_json_real(reply, "bytes_in_per_s", n->watch.rate.in_per_s);
    pd_json_real(reply, "bytes_out_per_s", n->watch.rate.out_per_s);
    pd_json_real(reply, "wire_bytes_per_record", news ? wire / (double)news : (double)NAN);
    pd_json_addr(reply, "listen", &listen);
    pd_json_count(reply, "bad_frames", c->bad_frames);
    pd_json_count(reply, "bad_seals", c->bad_seals);
    pd_json_count(reply, "duplicates", c->duplicates);
    pd_json_count(reply, "duplicate_bytes", c->duplicate_bytes);
    pd_json_real(reply, "copies", copies(n, c));
    if (c->fetch_total) {
        pd_json_count(reply, "fetched_bytes", c->fetched);
        pd_json_count(reply, "fetch_total_bytes", c->fetch_total);
    } else {
        cJSON_AddNullToObject(reply, "fetched_bytes");
        cJSON_AddNullToObject(reply, "fetch_total_bytes");
    }
}

/* ---- peers ---- */

const char *pd_answer_member(pd_member_state m) {
    static const char *const names[] = {"here", "away", "gone", "left", "banned"};
    return names[m];
}

const char *pd_answer_link(pd_link_state l) {
    static const char *const names[] = {"none", "dialing", "up", "suspect"};
    return names[l];
}

typedef struct peer {
    pd_peer_status s;
    pd_rate rate;
    const char *why;
} peer;

static bool is_linked(const pd_peer_status *p) {
    return p->link == PD_LINK_UP || p->link == PD_LINK_SUSPECT;
}

/* Linked ones first, then by how long ago they were here, by name, by key. */
static int by_nearness(const void *a, const void *b) {
    const pd_peer_status *x = &((const peer *)a)->s, *y = &((const peer *)b)->s;
    int order = is_linked(y) - is_linked(x);
    if (!order)
        order = (int)x->member - (int)y->member;
    if (!order)
        order = strcmp(x->name, y->name);
    return order ? order : memcmp(x->key, y->key, sizeof x->key);
}

static cJSON *peer_of(const peer *p) {
    cJSON *j = cJSON_CreateObject();
    pd_json_hex(j, "key", p->s.key, 32);
    cJSON_AddStringToObject(j, "name", p->s.name);
    pd_json_addr(j, "addr", &p->s.addr);
    cJSON_AddStringToObject(j, "member", pd_answer_member(p->s.member));
    cJSON_AddStringToObject(j, "link", pd_answer_link(p->s.link));
    cJSON_AddBoolToObject(j, "outbound", p->s.outbound);
    cJSON_AddStringToObject(j, "link_why", is_linked(&p->s) ? "" : p->why);
    pd_json_count(j, "records", p->s.records);
    pd_json_count(j, "void_records", p->s.voids);
    cJSON_AddNumberToObject(j, "score", p->s.score);
    cJSON_AddBoolToObject(j, "observer", p->s.observer);
    pd_json_count(j, "missing", p->s.missing);
    pd_json_count(j, "behind", p->s.behind);
    pd_json_count(j, "bytes_in", p->s.bytes_in);
    pd_json_count(j, "bytes_out", p->s.bytes_out);
    pd_json_real(j, "bytes_in_per_s", p->rate.in_per_s);
    pd_json_real(j, "bytes_out_per_s", p->rate.out_per_s);
    pd_json_count(j, "rtt_ms", p->s.rtt_ms);
    pd_json_count(j, "quiet_ms", p->s.quiet_ms);
    return j;
}

/* The i-th peer as the core and the watch know it; false past the last. */
static bool get_peer(const pd_node *n, uint64_t now, uint32_t i, peer *out) {
    const pd_watch *w = &n->watch;
    *out = (peer){.why = ""};
    if (!pd_core_peer_get(n->core, now, i, &out->s))
        return false;
    if (i < w->n) {
        out->rate = w->peer[i].rate;
        out->why = w->peer[i].why;
    }
    return true;
}

static pd_err add_peers(const pd_node *n, uint64_t now, uint32_t members, cJSON *reply) {
    peer *p = calloc(members ? members : 1, sizeof *p);
    uint32_t count = 0, counted = 1; /* this node */
    if (!p)
        return pd_fail(PD_ENOMEM, "no memory for %u members", members);
    while (count < members && get_peer(n, now, count, &p[count]))
        counted += p[count++].s.member < PD_MEMBER_GONE;
    qsort(p, count, sizeof *p, by_nearness);
    pd_json_count(reply, "counted", counted);
    cJSON *peers = cJSON_AddArrayToObject(reply, "peers");
    for (uint32_t i = 0; i < count && i < PEERS_MOST; i++)
        cJSON_AddItemToArray(peers, peer_of(&p[i]));
    free(p);
    return PD_OK;
}

/* What this node's model rests on, and what it knows of others' checkpoints. */
static void add_checkpoint(const pd_node *n, const pd_trainer_status *t, cJSON *reply) {
    static const char *const names[] = {"none", "open", "equal", "differs"};
    const pd_store_begun *b = &n->site->begun;
    cJSON *c = cJSON_AddObjectToObject(reply, "checkpoint");
    cJSON_AddStringToObject(c, "audit", names[b->state]);
    pd_json_count(c, "voices", b->voices);
    pd_json_count(c, "records", b->records);
    pd_json_count(c, "lacking_bytes", pd_ledger_lacking(n->site->ledger));
    pd_json_count(c, "audited_records", t->audited);
    cJSON_AddBoolToObject(c, "waits", t->waits);
    pd_json_count(c, "wrong", n->ckpts.wrong);
    cJSON_AddStringToObject(c, "wrong_why", n->ckpts.why);
}

pd_err pd_answer_status(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    pd_node *n = ctx;
    uint64_t now = pd_clock_ms();
    pd_core_status c;
    pd_trainer_status t;
    pd_core_status_get(n->core, now, &c);
    pd_trainer_status_get(n->trainer, &t);
    add_run(n->site, reply);
    pd_json_count(reply, "pid", (uint64_t)getpid());
    pd_json_count(reply, "uptime_s", (now - n->started_ms) / 1000);
    add_state(n, &c, &t, reply);
    add_heldout(n->site, &t, reply);
    add_traffic(n, &c, reply);
    pd_json_hex(reply, "digest", t.digest, PD_DIGEST_BYTES);
    pd_json_count(reply, "digest_records", t.records);
    add_checkpoint(n, &t, reply);
    return add_peers(n, now, c.members, reply);
}
