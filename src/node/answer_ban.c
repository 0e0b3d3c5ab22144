/* answer_ban.c - the control socket's `ban` and `rotate`: what a person decides about a member, or
 * about the node's own key. */
#include "answer.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <math.h>
#include <string.h>

enum { PREFIX_MIN = 4 };

static void add_hex(cJSON *j, const char *name, const uint8_t key[32]) {
    char text[65];
    pd_hex(key, 32, text);
    cJSON_AddStringToObject(j, name, text);
}

static bool is_meant(const pd_peer_status *p, const char *who) {
    char key[65];
    size_t n = strlen(who);
    pd_hex(p->key, 32, key);
    return strcmp(p->name, who) == 0 || (n >= PREFIX_MIN && n <= 64 && strncmp(key, who, n) == 0);
}

/* The one member that a name or a key's first digits mean. */
static pd_err find_member(const pd_node *n, const char *who, pd_peer_status *out) {
    pd_peer_status p;
    uint32_t found = 0;
    for (uint32_t i = 0; pd_core_peer_get(n->core, pd_clock_ms(), i, &p); i++)
        if (is_meant(&p, who)) {
            found++;
            *out = p;
        }
    if (found > 1)
        return pd_fail(PD_EUSAGE, "%u members are meant by %s: give more digits of the key", found,
                       who);
    return found ? PD_OK
                 : pd_fail(PD_ENOENT,
                           "no other member is called %s, nor has a key that begins so (peerctl "
                           "status lists them)",
                           who);
}

static pd_err first_void(const cJSON *request, uint64_t held, uint64_t *from) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(request, "from");
    *from = held;
    if (!v)
        return PD_OK;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= (double)held) ||
        v->valuedouble != floor(v->valuedouble))
        return pd_fail(PD_EUSAGE,
                       "\"from\" takes 0 to %llu, as many records as are held of the member",
                       (unsigned long long)held);
    *from = (uint64_t)v->valuedouble;
    return PD_OK;
}

pd_err pd_answer_ban(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    pd_node *n = ctx;
    const char *who = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "member"));
    pd_peer_status p;
    pd_event v = {.kind = PD_EV_BAN};
    pd_err e = who && *who ? find_member(n, who, &p)
                           : pd_fail(PD_EUSAGE,
                                     "ban needs \"member\", a name or the first digits of a key");
    if (!e && n->stopping)
        e = pd_fail(PD_EBUSY, "the node is stopping");
    if (!e)
        e = pd_core_may_ban(n->core, p.key, &v.author, &v.at);
    if (!e)
        e = first_void(request, v.at, &v.at);
    if (e)
        return e;
    memcpy(v.key, p.key, 32);
    bool decides = pd_core_bans_alone(n->core, p.key);
    pd_node_step(n, &v);
    add_hex(reply, "key", p.key);
    cJSON_AddStringToObject(reply, "name", p.name);
    cJSON_AddNumberToObject(reply, "from", (double)v.at);
    cJSON_AddBoolToObject(reply, "decides", decides);
    pd_info("a ban of %s%s is written", *p.name ? p.name : "a member",
            decides ? "" : " (one voice of three)");
    return PD_OK;
}

pd_err pd_answer_rotate(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    (void)request;
    pd_node *n = ctx;
    pd_core_status s;
    pd_identity next;
    uint8_t msg[PD_ROTATE_MESSAGE_BYTES], sig[64];
    pd_core_status_get(n->core, pd_clock_ms(), &s);
    if (n->stopping)
        return pd_fail(PD_EBUSY, "the node is stopping already");
    if (s.voice != PD_VOICE_SPEAKING)
        return pd_fail(PD_EBUSY, "the node may not speak yet, so it cannot name its next key: %s",
                       s.why);
    pd_err e = pd_site_next_key(n->site, &next);
    if (e)
        return e;
    pd_rotate_message(n->site->run, n->site->identity.pub, next.pub, msg);
    pd_sign(&next, msg, sizeof msg, sig);
    pd_event v = {.kind = PD_EV_ROTATE, .p = sig, .n = sizeof sig};
    memcpy(v.key, next.pub, 32);
    pd_trainer_speak(n->trainer, false, NULL);
    pd_node_step(n, &v);
    add_hex(reply, "key", next.pub);
    add_hex(reply, "old", n->site->identity.pub);
    pd_identity_wipe(&next);
    pd_info("passing this node's place on to its next key; start it again to go on");
    pd_node_stop(n, false);
    return PD_OK;
}
