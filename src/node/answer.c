/* answer.c - what a running node does for the people who own it: the table of the control socket's
 * requests, and those that are answered in a few lines.  See peerd/control.h. */
#include "answer.h"
#include "history.h"
#include "json.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "peerd/ticket.h"
#include "question.h"
#include "records.h"

#include <stdio.h>

enum { USES_MAX = 1000 };
static const double EXPIRES_MAX = 3650.0 * 86400; /* ten years, in seconds */

static void add_addr(cJSON *array, const pd_addr *a) {
    char text[PD_ADDR_TEXT];
    pd_addr_print(a, text);
    cJSON_AddItemToArray(array, cJSON_CreateString(text));
}

/* ---- invite ---- */

/* Members that have not left, this node among them. */
static uint32_t places_taken(const pd_node *n) {
    uint32_t taken = 1;
    pd_peer_status p;
    for (uint32_t i = 0; pd_core_peer_get(n->core, pd_clock_ms(), i, &p); i++)
        taken += p.member < PD_MEMBER_LEFT;
    return taken;
}

/* Forget invite i; its key comes in no more.  The store forgets it when it expires. */
static void drop_invite(pd_node *n, uint32_t i) {
    pd_site *s = n->site;
    pd_net_deny_guest(n->net, s->invites[i].id);
    pd_wipe(&s->invites[i], sizeof s->invites[i]);
    s->invites[i] = s->invites[--s->n_invites];
}

static void drop_invites(pd_node *n, bool used_too) {
    int64_t now = pd_wall_s();
    for (uint32_t i = n->site->n_invites; i-- > 0;) {
        const pd_invite *v = &n->site->invites[i];
        if ((v->expires_s && v->expires_s <= now) || (used_too && !v->uses))
            drop_invite(n, i);
    }
}

/* Is there room for one more, in the run and in the table? */
static pd_err may_invite(pd_node *n) {
    const pd_site *s = n->site;
    uint32_t most =
        s->manifest.invites_max < PD_SITE_INVITES ? s->manifest.invites_max : PD_SITE_INVITES;
    if (n->stopping)
        return pd_fail(PD_EBUSY, "the node is stopping");
    if (places_taken(n) >= PD_PEERS_MAX)
        return pd_fail(PD_EFULL,
                       "all %d places of the run are taken; one becomes free when a "
                       "member leaves (peerctl leave)",
                       PD_PEERS_MAX);
    pd_err e = pd_core_may_invite(n->core);
    if (e)
        return e;
    drop_invites(n, true);
    if (s->n_invites >= most)
        return pd_fail(PD_EFULL,
                       "%u invites are outstanding, as many as the run allows; wait until "
                       "one is used or expires",
                       s->n_invites);
    return PD_OK;
}

/* Where the guest finds this node. */
static pd_err where(const pd_node *n, const cJSON *request, pd_addr out[PD_ADDRS_MAX],
                    uint32_t *count) {
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(request, "addr");
    if (!pd_net_listening(n->net).family)
        return pd_fail(PD_EUSAGE, "this node does not listen, so no guest can reach it: %s",
                       n->opts.solo ? "run it without --solo"
                                    : "set \"listen\" in its node.json, e.g. \":7433\", and start "
                                      "it again, or let another member invite");
    if (cJSON_IsString(text)) {
        *count = 1;
        return pd_addr_parse(text->valuestring, false, &out[0]);
    }
    *count = pd_site_listen_addresses(n->site, n->net, out);
    return *count ? PD_OK
                  : pd_fail(PD_EUSAGE, "this machine has no address that a guest could dial: name "
                                       "one with --address");
}

static pd_err admit(pd_node *n, const pd_invite *v) {
    uint8_t pub[32], sec[32];
    pd_curve_from_ticket(v->secret, pub, sec);
    pd_wipe(sec, sizeof sec);
    pd_err e = pd_net_allow_guest(n->net, pub, v->id);
    if (e)
        return e;
    pd_storer_invite_add(n->storer, v);
    n->site->invites[n->site->n_invites++] = *v;
    return PD_OK;
}

static pd_err invite(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    pd_node *n = ctx;
    double uses, expires;
    char text[PD_TICKET_TEXT];
    pd_ticket t = {0};
    pd_invite v = {0};
    if (!pd_json_whole(request, "uses", 1, USES_MAX, &uses) ||
        !pd_json_whole(request, "expires_s", 0, EXPIRES_MAX, &expires))
        return pd_fail(PD_EUSAGE,
                       "invite needs \"uses\", 1 to %d, and \"expires_s\", seconds from "
                       "now, at most ten years (0: never)",
                       USES_MAX);
    pd_err e = may_invite(n);
    if (!e)
        e = where(n, request, t.addrs, &t.n_addrs);
    if (e)
        return e;
    pd_random(v.secret, sizeof v.secret);
    while (!v.id)
        v.id = pd_random64() >> 1; /* SQLite's integers have a sign */
    v.uses = (uint32_t)uses;
    v.expires_s = expires > 0 ? pd_wall_s() + (int64_t)expires : 0;
    e = admit(n, &v);
    if (!e) {
        memcpy(t.net, n->site->run, sizeof t.net);
        memcpy(t.inviter, n->site->identity.pub, sizeof t.inviter);
        memcpy(t.secret, v.secret, sizeof t.secret);
        t.expiry_s = (uint32_t)v.expires_s;
        pd_ticket_write(&t, text);
        cJSON_AddStringToObject(reply, "ticket", text);
        cJSON_AddNumberToObject(reply, "uses", uses);
        cJSON_AddNumberToObject(reply, "expires_s", (double)v.expires_s);
        cJSON *addrs = cJSON_AddArrayToObject(reply, "addrs");
        for (uint32_t i = 0; i < t.n_addrs; i++)
            add_addr(addrs, &t.addrs[i]);
        pd_info("an invite for %u node%s", v.uses, v.uses == 1 ? "" : "s");
    }
    pd_wipe(&t, sizeof t);
    pd_wipe(&v, sizeof v);
    pd_wipe(text, sizeof text);
    return e;
}

/* ---- the rest ---- */

static pd_err join(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    pd_node *n = ctx;
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "ticket"));
    pd_ticket t;
    pd_err e = text ? pd_ticket_read(text, &t) : pd_fail(PD_EUSAGE, "join needs \"ticket\"");
    if (e)
        return e;
    pd_wipe(t.secret, sizeof t.secret); /* this node is a member already */
    if (memcmp(t.net, n->site->run, sizeof t.net) != 0)
        return pd_fail(PD_EMISMATCH, "the ticket is of another run than this node's; join that one "
                                     "in a new folder: peerd join DIR TICKET ...");
    if (memcmp(t.inviter, n->site->identity.pub, 32) == 0)
        return pd_fail(PD_EUSAGE, "this node made the ticket itself; it is for another one");
    if (!pd_core_is_member(n->core, t.inviter))
        return pd_fail(PD_ENOENT, "this node does not know the ticket's member yet, and will hear "
                                  "of it from the members that it reaches");
    if (n->opts.solo)
        return pd_fail(PD_EUSAGE, "this node runs alone; run it without --solo");
    cJSON *addrs = cJSON_AddArrayToObject(reply, "addrs");
    pd_store_addr known = {.addr = t.addrs[0]};
    memcpy(known.key, t.inviter, 32);
    pd_storer_addr(n->storer, &known);
    for (uint32_t i = 0; i < t.n_addrs; i++) {
        pd_event v = {.kind = PD_EV_ADDRESS, .addrs = &t.addrs[i], .n = 1};
        memcpy(v.key, t.inviter, 32);
        pd_node_step(n, &v);
        add_addr(addrs, &t.addrs[i]);
    }
    return PD_OK;
}

static pd_err leave(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    pd_node *n = ctx;
    pd_core_status s;
    pd_core_status_get(n->core, pd_clock_ms(), &s);
    if (n->stopping)
        return pd_fail(PD_EBUSY, "the node is stopping already");
    if (s.voice != PD_VOICE_SPEAKING)
        return pd_fail(PD_EBUSY, "the node may not speak yet, so it cannot say goodbye: %s", s.why);
    pd_info("leaving the run for good");
    pd_node_stop(n, true);
    cJSON_AddBoolToObject(reply, "leaving", true);
    return PD_OK;
}

/* The folder remembers it first: a node that says that it is paused stays so over a restart. */
static pd_err set_paused(pd_node *n, bool paused, cJSON *reply) {
    pd_config c; /* as written, not as this start's flags have it */
    pd_err e = pd_config_read(n->site->dir, &c);
    if (e)
        return e;
    if (c.paused != paused) {
        c.paused = paused;
        e = pd_config_write(n->site->dir, &c);
    }
    if (e)
        return e;
    n->site->config.paused = paused;
    pd_trainer_pause(n->trainer, paused);
    pd_info("%s", paused ? "paused: a person asked for it (peerctl resume ends it)"
                         : "resumed: a person asked for it");
    cJSON_AddBoolToObject(reply, "paused", paused);
    return PD_OK;
}

static pd_err pause_it(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    return set_paused(ctx, true, reply);
}

static pd_err resume(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    return set_paused(ctx, false, reply);
}

static void add_line(void *ctx, const char *line) {
    cJSON_AddItemToArray(ctx, cJSON_CreateString(line));
}

static pd_err journal(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)ctx;
    (void)call;
    double after = 0;
    if (cJSON_HasObjectItem(request, "after") &&
        !pd_json_whole(request, "after", 0, 9007199254740992.0, &after))
        return pd_fail(PD_EUSAGE, "journal needs \"after\", the `next` of an earlier reply, or 0");
    cJSON *lines = cJSON_AddArrayToObject(reply, "lines");
    cJSON_AddNumberToObject(reply, "next",
                            (double)pd_history_each((uint64_t)after, add_line, lines));
    return PD_OK;
}

/* ---- open, close, every turn ---- */

static const pd_control_entry table[] = {
    {"status", pd_answer_status},
    {"invite", invite},
    {"join", join},
    {"leave", leave},
    {"ban", pd_answer_ban},
    {"rotate", pd_answer_rotate},
    {"pause", pause_it},
    {"resume", resume},
    {"verify", pd_answer_verify},
    {"export", pd_answer_export},
    {"backup", pd_answer_backup},
    {"checkpoint", pd_answer_checkpoint},
    {"check", pd_answer_check},
    {"health", pd_answer_health},
    {"members", pd_answer_members},
    {"log", pd_answer_log},
    {"journal", journal},
    {NULL, NULL},
};

pd_err pd_node_control_open(pd_node *n) {
    pd_history_start();
    n->records_before = pd_ledger_records(n->site->ledger);
    n->foreign_before = pd_records_foreign(n->site->ledger, n->site->identity.pub);
    return pd_control_open(n->site->dir, table, n, &n->control);
}

void pd_node_control_close(pd_node *n) {
    pd_control_close(n->control);
    n->control = NULL;
    pd_question_drop(n);
}

void pd_node_measure(pd_node *n) {
    if (pd_watch_look(n))
        drop_invites(n, false);
}
