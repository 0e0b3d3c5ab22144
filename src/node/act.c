/* act.c - the core's actions carried out: each is one call into transport, store, trainer or log;
 * see node.h. */
#include "node.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>

/* An event that an action made; the core sees it after the actions that stand behind it. */
static void defer(pd_node *n, const pd_event *e) {
    assert(n->n_deferred < PD_DEFERRED_MAX);
    n->deferred[n->n_deferred++] = *e;
}

static void send_frame(pd_node *n, const pd_action *a) {
    pd_err e = pd_net_send(n->net, a->session, a->p, a->n);
    pd_event v = {.session = a->session,
                  .kind = e == PD_EAGAIN ? PD_EV_CLOGGED : PD_EV_SESSION_DOWN};
    if (!e)
        return;
    if (e != PD_EAGAIN && e != PD_EGONE) /* a frame is lost: the other end must hear of it, too */
        pd_net_close(n->net, a->session);
    defer(n, &v);
}

static void dial(pd_node *n, const pd_action *a) {
    uint64_t session;
    if (!n->opts.solo && pd_net_dial(n->net, &a->addr, a->key, NULL, &session) == PD_OK)
        return;
    pd_event v = {.kind = PD_EV_DIAL_FAILED};
    memcpy(v.key, a->key, 32);
    defer(n, &v);
}

/* Somebody else's bytes: into the ledger at once; the store follows it. */
static void take(pd_node *n, const pd_action *a) {
    uint32_t index;
    pd_err e = pd_ledger_author(n->site->ledger, &a->author, &index);
    if (!e)
        e = pd_ledger_append(n->site->ledger, index, a->stream, a->at, a->p, a->n, a->seal);
    if (e)
        pd_error("records of another node are not kept: %s", pd_fail_text());
    n->last_news_ms = pd_clock_ms();
    if (a->stream == PD_STREAM_GRADIENTS)
        pd_trainer_wake(n->trainer);
}

/* Replay takes back what does not count any more; the store follows. */
static void set_void(pd_node *n, const pd_action *a) {
    uint32_t index;
    if (pd_ledger_author(n->site->ledger, &a->author, &index) == PD_OK)
        pd_ledger_void(n->site->ledger, index, a->at);
    pd_trainer_wake(n->trainer);
}

static void store(pd_node *n, const pd_action *a) {
    if (!a->own) {
        take(n, a);
        return;
    }
    pd_watch_seal(n, a);
    pd_err e = pd_storer_own(n->storer, &a->author, a->stream, a->at, a->p, a->n, a->seal);
    if (e) {
        pd_event v = {.kind = PD_EV_STORE_FAILED, .author = a->author, .stream = a->stream};
        defer(n, &v);
    }
}

static void speak(pd_node *n) {
    pd_author author;
    uint64_t step;
    bool may = !n->stopping && pd_core_may_speak(n->core, &author, &step);
    if (n->trainer)
        pd_trainer_speak(n->trainer, may, &author);
}

/* The next key is known to the others: the node ends, and starts under it. */
static void pass_on(pd_node *n) {
    if (pd_site_rotation_heard(n->site) != PD_OK) {
        pd_error("%s", pd_fail_text());
        return;
    }
    if (n->stopping)
        return;
    pd_info("the others know this node's next key; start it again to go on under it");
    n->stopping = true;
    const pd_event e = {.kind = PD_EV_STOP};
    defer(n, &e);
}

static void fatal(pd_node *n, const pd_action *a) {
    pd_error("%s", a->text);
    n->exit_status = (int)a->at;
    n->stopped = true;
}

/* Each level has its own allowance: many small news do not hold back a warning. */
static void note(const pd_action *a) {
    static pd_log_site sites[PD_LOG_DEBUG + 1];
    assert(a->level >= 0 && a->level <= PD_LOG_DEBUG);
    pd_log_at(&sites[a->level], (pd_log_level)a->level, "%s", a->text);
}

void pd_node_act(pd_node *n, const pd_action *a) {
    switch (a->kind) {
    case PD_ACT_SEND:
        send_frame(n, a);
        break;
    case PD_ACT_CLOSE:
        pd_watch_close(n, a);
        pd_debug("session %llu closed: %s", (unsigned long long)a->session, a->text ? a->text : "");
        pd_net_close(n->net, a->session);
        break;
    case PD_ACT_DIAL:
        dial(n, a);
        break;
    case PD_ACT_ALLOW:
        if (pd_net_allow(n->net, a->key) != PD_OK)
            pd_warn("a member cannot be admitted: %s", pd_fail_text());
        break;
    case PD_ACT_DENY:
        pd_net_deny(n->net, a->key);
        break;
    case PD_ACT_VOID:
        set_void(n, a);
        break;
    case PD_ACT_STORE:
        store(n, a);
        break;
    case PD_ACT_META:
        n->site->incarnation = (uint32_t)a->at;
        pd_storer_incarnation(n->storer, (uint32_t)a->at);
        break;
    case PD_ACT_SPEAK:
        speak(n);
        break;
    case PD_ACT_PASSED:
        pass_on(n);
        break;
    case PD_ACT_INVITE_USED:
        if (pd_site_invite_used(n->site, a->invite))
            pd_net_deny_guest(n->net, a->invite);
        pd_storer_invite_used(n->storer, a->invite);
        break;
    case PD_ACT_FILE: /* a checkpoint's; the basis is fetched while joining (join.c) */
        pd_ckpts_piece(n, a);
        break;
    case PD_ACT_PREFIX:
        pd_ckpts_prefix(n, a);
        break;
    case PD_ACT_CKPT_DUE:
        pd_ckpts_due(n);
        break;
    case PD_ACT_NOTE:
        note(a);
        break;
    case PD_ACT_STOPPED:
        n->stopped = true;
        break;
    case PD_ACT_FATAL:
        fatal(n, a);
        break;
    case PD_ACT_INSTALLED: /* joining only */
    case PD_ACT_MANIFEST:
    case PD_ACT_JOINED:
    case PD_ACT_REFUSED:
        assert(false); /* the core of a running node does not join */
        break;
    }
}
