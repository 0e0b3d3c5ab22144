/* answer_ledger.c - the control socket's `members` and `log`: who is in the run and what each has
 * said, a page at a time. */
#include "answer.h"
#include "json.h"
#include "peerd/byte.h"
#include "peerd/file.h"
#include "records.h"

#include <stdlib.h>

enum { PAGE_MOST = 1000, READ_BYTES = 1024 };
static const double WHOLE_MAX = 9007199254740992.0; /* 2^53: a JSON number is a double */

/* An optional whole number of a request. */
static pd_err get_number(const cJSON *request, const char *name, double most, double *v) {
    if (cJSON_HasObjectItem(request, name) && !pd_json_whole(request, name, 0, most, v))
        return pd_fail(PD_EUSAGE, "\"%s\" is a whole number from 0 to %.0f", name, most);
    return PD_OK;
}

/* ---- members ---- */

typedef struct admissions {
    pd_admission *list;
    size_t n;
} admissions;

static cJSON *member(const admissions *a, const uint8_t key[32], const char *name) {
    cJSON *j = cJSON_CreateObject();
    const uint8_t *inviter = pd_records_inviter(a->list, a->n, key);
    pd_json_hex(j, "key", key, 32);
    cJSON_AddStringToObject(j, "name", name);
    if (inviter)
        pd_json_hex(j, "inviter", inviter, 32);
    else
        cJSON_AddNullToObject(j, "inviter");
    return j;
}

static cJSON *own_member(pd_node *n, const admissions *a) {
    pd_core_status s;
    pd_core_status_get(n->core, pd_clock_ms(), &s);
    cJSON *j = member(a, n->site->identity.pub, n->site->config.name);
    pd_addr listen = pd_net_listening(n->net);
    cJSON_AddBoolToObject(j, "self", true);
    cJSON_AddStringToObject(j, "member", "here");
    cJSON_AddNullToObject(j, "link");
    pd_json_addr(j, "addr", &listen);
    pd_json_count(j, "quiet_ms", 0);
    pd_json_count(j, "records", s.step);
    pd_json_count(j, "incarnation", s.own.inc);
    return j;
}

static cJSON *other_member(const pd_node *n, const admissions *a, const pd_peer_status *p,
                           uint64_t now) {
    cJSON *j = member(a, p->key, p->name);
    cJSON_AddBoolToObject(j, "self", false);
    cJSON_AddStringToObject(j, "member", pd_answer_member(p->member));
    cJSON_AddStringToObject(j, "link", pd_answer_link(p->link));
    pd_json_addr(j, "addr", &p->addr);
    if (p->quiet_ms < now - n->core_ms)
        pd_json_count(j, "quiet_ms", p->quiet_ms);
    else
        cJSON_AddNullToObject(j, "quiet_ms"); /* it has not been heard since the start */
    pd_json_count(j, "records", p->records);
    pd_json_count(j, "incarnation", p->incarnation);
    return j;
}

/* Number 0 is this node, i + 1 the core's i-th other member. */
pd_err pd_answer_members(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    pd_node *n = ctx;
    admissions a = {0};
    double after = 0;
    pd_peer_status p;
    uint64_t now = pd_clock_ms();
    pd_err e = get_number(request, "after", UINT32_MAX, &after);
    if (!e)
        e = pd_records_admissions(n->site->ledger, &a.list, &a.n);
    if (e)
        return pd_fail_in(e, "members");
    cJSON *list = cJSON_AddArrayToObject(reply, "members");
    uint32_t i = (uint32_t)after, end = i + PAGE_MOST;
    bool more = true;
    if (i == 0) {
        cJSON_AddItemToArray(list, own_member(n, &a));
        i++;
    }
    for (; i < end && (more = pd_core_peer_get(n->core, now, i - 1, &p)); i++)
        cJSON_AddItemToArray(list, other_member(n, &a, &p, now));
    if (more)
        pd_json_count(reply, "next", i);
    else
        cJSON_AddNullToObject(reply, "next");
    free(a.list);
    return PD_OK;
}

/* ---- log ---- */

typedef struct page {
    pd_node *n;
    const char *author; /* the beginning of a key in hex, or a name; NULL: everyone */
    bool control;
    uint64_t from, left; /* left: room in this page */
    uint32_t index;      /* where to go on: the ledger's author ... */
    uint64_t step;       /* ... and its step; 0: its control records too */
    bool matched;        /* some author is the one asked for */
    cJSON *records;
    pd_author id;
} page;

/* The name under which a key is known here; "" if none. */
static void name_of(const pd_node *n, const uint8_t key[32], char out[PD_NAME_MAX + 1]) {
    pd_peer_status p;
    out[0] = 0;
    if (memcmp(key, n->site->identity.pub, 32) == 0)
        memcpy(out, n->site->config.name, PD_NAME_MAX + 1);
    for (uint32_t i = 0; !out[0] && pd_core_peer_get(n->core, pd_clock_ms(), i, &p); i++)
        if (memcmp(key, p.key, 32) == 0) {
            memcpy(out, p.name, PD_NAME_MAX + 1);
            return;
        }
}

static bool is_asked_for(const page *g, const uint8_t key[32]) {
    char hex[65], name[PD_NAME_MAX + 1];
    if (!g->author)
        return true;
    pd_hex(key, 32, hex);
    if (strncmp(hex, g->author, strlen(g->author)) == 0)
        return true;
    name_of(g->n, key, name);
    return strcmp(name, g->author) == 0;
}

static cJSON *record_of(const page *g) {
    cJSON *j = cJSON_CreateObject();
    pd_json_hex(j, "author", g->id.key, 32);
    pd_json_count(j, "incarnation", g->id.inc);
    cJSON_AddItemToArray(g->records, j);
    return j;
}

static void add_control(void *ctx, const pd_told *t) {
    const page *g = ctx;
    cJSON *j = record_of(g);
    pd_json_count(j, "at", t->at);
    cJSON_AddStringToObject(j, "control", t->kind);
    cJSON_AddStringToObject(j, "text", t->text);
}

/* Records of the author at g->index, from g->step on, until the page is full or the log ends. */
static void add_records(page *g) {
    double scale = pd_fixed_value(g->n->site->manifest.scale);
    uint8_t bytes[READ_BYTES];
    size_t n = 1;
    while (g->left && n) {
        size_t room = g->left < READ_BYTES ? (size_t)g->left : READ_BYTES;
        n = pd_ledger_read(g->n->site->ledger, g->index, PD_STREAM_GRADIENTS, g->step, bytes, room);
        for (size_t i = 0; i < n; i++) {
            cJSON *j = record_of(g);
            pd_json_count(j, "step", g->step + i);
            pd_json_count(j, "byte", bytes[i]);
            pd_json_real(j, "value", pd_byte_value(bytes[i]) * scale);
        }
        g->step += n;
        g->left -= n;
    }
}

static void fill(page *g) {
    pd_log_info info;
    for (; g->left && pd_ledger_info(g->n->site->ledger, g->index, &info); g->index++) {
        if (is_asked_for(g, info.author.key)) {
            g->matched = true;
            g->id = info.author;
            if (g->control && g->step == 0)
                pd_records_control(g->n->site->ledger, g->index, add_control, g);
            if (g->step < g->from)
                g->step = g->from;
            add_records(g);
            if (!g->left)
                return;
        }
        g->step = 0;
    }
}

pd_err pd_answer_log(void *ctx, uint64_t call, const cJSON *request, cJSON *reply) {
    (void)call;
    page g = {.n = ctx};
    double from = 0, limit = PAGE_MOST, index = 0, step = 0;
    pd_err e = get_number(request, "from", WHOLE_MAX, &from);
    if (!e)
        e = get_number(request, "limit", PAGE_MOST, &limit);
    if (!e)
        e = get_number(request, "after_author", UINT32_MAX, &index);
    if (!e)
        e = get_number(request, "after_step", WHOLE_MAX, &step);
    if (e)
        return pd_fail_in(e, "log");
    g.author = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "author"));
    g.control = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(request, "control"));
    g.from = (uint64_t)from;
    g.left = (uint64_t)limit;
    g.index = (uint32_t)index;
    g.step = (uint64_t)step;
    g.records = cJSON_AddArrayToObject(reply, "records");
    fill(&g);
    if (g.author && !g.matched && index == 0 && g.left)
        return pd_fail(PD_ENOENT,
                       "no author here has the name or key '%.64s' (see: peerctl members)",
                       g.author);
    bool more = g.index < pd_ledger_authors(g.n->site->ledger);
    cJSON_AddBoolToObject(reply, "more", more);
    pd_json_count(reply, "after_author", g.index);
    pd_json_count(reply, "after_step", g.step);
    return PD_OK;
}
