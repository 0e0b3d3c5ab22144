/* link.c - sessions: HELLO, doubles, credits, health.
 *
 * A session is one TCP connection's life: whatever was in flight when it ends is lost, so nothing
 * is remembered of it and the next begins with HELLO.  Failure is judged by each node for its own
 * links only and costs one redial.
 */
#include "state.h"

pd_link *pd_link_find(pd_core *c, uint64_t session) {
    for (unsigned i = 0; session && i < PD_SESSIONS_MAX; i++)
        if (pd_link_used(c, i) && c->link[i].session == session)
            return &c->link[i];
    return NULL;
}

pd_link *pd_link_of(pd_core *c, uint16_t member) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++)
        if (pd_link_used(c, i) && pd_link_live(&c->link[i]) && c->link[i].member == member)
            return &c->link[i];
    return NULL;
}

static void close_session(pd_core *c, uint64_t session, const char *why) {
    pd_action *a = pd_emit(c, PD_ACT_CLOSE);
    a->session = session;
    a->text = why;
}

void pd_link_up(pd_core *c, const pd_event *e) {
    uint16_t m = e->guest ? PD_NONE : pd_member_find(c, e->key);
    pd_link *l = NULL;
    unsigned end = e->guest ? PD_SESSIONS_MAX : PD_LINKS_MAX;
    for (unsigned i = e->guest ? PD_LINKS_MAX : 0; i < end && !l; i++)
        if (!pd_link_used(c, i))
            l = &c->link[i];
    bool refused = m != PD_NONE && m != c->self && pd_score_refuses(c, m);
    bool out = m != PD_NONE && m != c->self && pd_member_is_out(&c->member[m]);
    if (!l || (!e->guest && m == PD_NONE) || out || refused || pd_link_find(c, e->session) ||
        c->own.stop_ms) {
        close_session(c, e->session,
                      !l        ? "too many sessions"
                      : refused ? "refused for what it did"
                                : "not a member of this run");
        if (e->outbound && m != PD_NONE)
            pd_dial_failed(c, e->key);
        return;
    }
    memset(l, 0, offsetof(pd_link, in)); /* its rows stay where they are */
    pd_table_clear_link(c, l);
    l->session = e->session;
    pd_set_add(&c->used, pd_link_index(c, l));
    memcpy(l->key, e->key, 32);
    l->member = m;
    l->outbound = e->outbound;
    l->guest = e->guest;
    l->invite = e->invite;
    l->spent = e->spent;
    l->up_ms = l->heard_ms = c->now;
    l->window = PD_WINDOW_START;
    l->want = !e->guest; /* HELLO; a guest speaks first */
    l->ping_due = !e->guest;
    if (m == PD_NONE)
        return;
    l->compare = l->outbound && c->member[m].compare;
    pd_dial_up(c, &c->member[m]);
}

void pd_link_down(pd_core *c, pd_link *l) {
    pd_member *m = l->member == PD_NONE ? NULL : &c->member[l->member];
    pd_tree_lost(c, l);
    pd_fetch_lost(c, l);
    pd_prefix_lost(c, l);
    for (unsigned i = 0; i < PD_STAGES; i++)
        if (c->stage[i].link == pd_link_index(c, l))
            c->stage[i].link = PD_NONE; /* the slot may be another peer's soon */
    if (c->welcome_session == l->session)
        c->welcome_session = 0;
    uint64_t lasted = c->now - l->up_ms;
    bool wordless = pd_link_live(l) && !l->compare && !l->observer;
    l->session = 0;
    pd_set_remove(&c->used, pd_link_index(c, l));
    if (!m)
        return;
    if (pd_link_of(c, l->member))
        return;
    m->lost = wordless;
    pd_dial_down(c, m, lasted);
}

void pd_link_close(pd_core *c, pd_link *l, const char *why) {
    close_session(c, l->session, why);
    pd_link_down(c, l);
}

static void say_bye(pd_core *c, pd_link *l, const pd_item *bye) {
    pd_send_item(c, l, bye);
    l->bye_ms = c->now;
    l->want = false;
    pd_wake_at(c, c->now + PD_BYE_MS);
}

void pd_link_bye(pd_core *c, pd_link *l, pd_bye why) {
    if (l->bye_ms)
        return;
    say_bye(c, l, &(pd_item){.kind = PD_ITEM_BYE, .u.bye = {.why = why}});
}

void pd_link_bye_full(pd_core *c, pd_link *l) {
    pd_item bye = {.kind = PD_ITEM_BYE, .u.bye = {.why = PD_BYE_FULL}};
    pd_view_alternatives(c, l, &bye);
    say_bye(c, l, &bye);
}

/* Two sessions with one node.  Of one process: both dialled; keep the one that the lower key
 * dialled.  Of two: the newer process is the living one.
 */
static bool survives(pd_core *c, pd_link *l) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *o = &c->link[i];
        if (o == l || !pd_link_live(o) || o->member != l->member)
            continue;
        if (l->compare && !o->compare)
            return false;
        bool lower = memcmp(c->conf.key, l->key, 32) < 0;
        bool old_is_lowers = o->outbound == lower, new_is_lowers = l->outbound == lower;
        if (o->nonce == l->nonce && old_is_lowers && !new_is_lowers)
            return false;
        pd_link_close(c, o, "another session with the same node is kept");
    }
    return true;
}

void pd_link_hello(pd_core *c, pd_link *l, const pd_hello *h) {
    pd_member *m = &c->member[l->member];
    if (memcmp(h->net, c->conf.run, 32)) {
        pd_link_bye(c, l, PD_BYE_OTHER_RUN);
        return;
    }
    if (h->proto != PD_PROTO) {
        pd_note(
            c, PD_LOG_WARN,
            "%s speaks another protocol version, %u, and this node %u: no link until one of the "
            "two is brought up to date",
            *m->name ? m->name : pd_short(m->key, (char[9]){0}), h->proto, PD_PROTO);
        pd_link_bye(c, l, PD_BYE_VERSION);
        return;
    }
    if (l->member == c->self) {
        if (h->nonce < c->nonce) { /* both see both numbers: one of the two stays */
            c->own.voice = PD_VOICE_SILENCED;
            pd_action *a = pd_emit(c, PD_ACT_FATAL);
            a->at = 75;
            a->text = "another live process has this node's key: stop one of the two";
        } else if (h->nonce > c->nonce)
            pd_note(c, PD_LOG_ERROR, "another live process had this node's key; that one ends");
        pd_link_close(c, l, "this is our own address");
        return;
    }
    l->nonce = h->nonce;
    l->peer_hash = h->memb_hash;
    if (l->hello_out)
        pd_alias_base(c, l);
    if (!pd_link_of(c, l->member) && !pd_view_takes(c, l, h)) {
        pd_link_bye_full(c, l);
        return;
    }
    l->hello_in = true;
    if (!survives(c, l)) {
        pd_link_close(c, l, "another session with the same node is kept");
        return;
    }
    l->sync_ms = c->now + pd_jitter(c, PD_SYNC_MS, 20);
    l->compare_ms = c->now;
    pd_member_hint(m, &h->addr);
    pd_heads_summary(c, l, h->vv_hash, h->total, true);
    l->want = true;
}

/* ---- credits and health ---- */

/* Window = 2 * rate * rtt.  The rate is measured only while the window was the limit: an idle link
 * says nothing about what it could carry.
 */
static void measure(pd_core *c, pd_link *l) {
    uint64_t ms = c->now - l->rate_ms, floor_ms = l->rtt_ms > 200 ? l->rtt_ms : 200;
    if (!l->blocked) {
        l->rate_ms = c->now;
        l->rate_acked = l->acked;
        return;
    }
    if (ms < floor_ms)
        return;
    uint64_t rate = (l->acked - l->rate_acked) * 1000 / ms;
    if (rate > 1000000000)
        rate = 1000000000;
    l->rate = l->rate ? (uint32_t)((3 * (uint64_t)l->rate + rate) / 4) : (uint32_t)rate;
    l->rate_ms = c->now;
    l->rate_acked = l->acked;
    /* An answer waits for its frame: without that the window of a fast link would stay at its
     * least. */
    uint64_t rtt = (l->rtt_ms ? l->rtt_ms : 100) + pd_view_frame_ms(c, l);
    uint64_t window = 2 * (uint64_t)l->rate * rtt / 1000;
    l->window = (uint32_t)(window < PD_WINDOW_MIN   ? PD_WINDOW_MIN
                           : window > PD_WINDOW_MAX ? PD_WINDOW_MAX
                                                    : window);
}

void pd_link_heard(pd_core *c, pd_link *l, size_t n, uint64_t ack) {
    l->rx += n;
    l->heard_ms = c->now;
    l->suspect = false;
    l->pings = 0;
    c->bytes_in += n;
    c->frames_in++;
    if (l->member != PD_NONE) {
        c->member[l->member].bytes_in += n;
        c->member[l->member].heard_ms = c->now;
    }
    if (ack > l->acked) {
        l->acked = ack;
        measure(c, l);
        if (l->blocked)
            l->want = true;
    }
    if (l->rx - l->acked_out >= PD_ACK_BYTES)
        l->want = true;
}

void pd_link_pong(pd_core *c, pd_link *l, uint32_t nonce) {
    if (!l->ping_ms || nonce != l->ping_nonce)
        return;
    uint64_t ms = c->now - l->ping_ms;
    l->ping_ms = 0;
    uint32_t rtt = ms < 1 ? 1 : ms > 60000 ? 60000 : (uint32_t)ms;
    l->rtt_ms = l->rtt_ms ? (7 * l->rtt_ms + rtt) / 8 : rtt;
}

static uint64_t suspect_after(const pd_core *c, const pd_link *l) {
    uint64_t slow = 6 * (uint64_t)l->rtt_ms + 2 * pd_view_frame_ms(c, l);
    return slow > PD_SUSPECT_MS ? slow : PD_SUSPECT_MS;
}

static void ping(pd_link *l) {
    l->ping_due = l->want = true;
    l->pings++;
}

/* Silence: ask at 15 s (the side that was dialled a little later, so that one of them asks), ask
 * again and suspect at 30 s, close at 45 s.
 */
static void judge_silence(pd_core *c, pd_link *l) {
    uint64_t quiet = c->now > l->heard_ms ? c->now - l->heard_ms : 0;
    uint64_t first = PD_PING_MS + (l->outbound ? 0 : 2000), suspect = suspect_after(c, l);
    uint64_t dead = suspect + (PD_DEAD_MS - PD_SUSPECT_MS), next = l->heard_ms + first;
    if (quiet >= dead && c->now >= c->calm_ms) {
        pd_link_close(c, l, "silent for too long");
        return;
    }
    if (quiet >= first && l->pings == 0)
        ping(l);
    if (quiet >= suspect && l->pings == 1) {
        ping(l);
        l->suspect = true;
    }
    if (quiet >= first)
        next = l->heard_ms + (quiet >= suspect ? dead : suspect);
    if (next < c->calm_ms && quiet >= suspect)
        next = c->calm_ms;
    pd_wake_at(c, next > c->now ? next : c->now + PD_PING_MS);
}

void pd_link_tick(pd_core *c) {
    for (unsigned i = 0; i < PD_SESSIONS_MAX; i++) {
        pd_link *l = &c->link[i];
        if (!pd_link_used(c, i))
            continue;
        if (l->bye_ms) {
            if (c->now >= l->bye_ms + PD_BYE_MS)
                pd_link_close(c, l, "said goodbye");
            else
                pd_wake_at(c, l->bye_ms + PD_BYE_MS);
        } else if (l->guest) {
            if (c->now >= l->up_ms + PD_GUEST_MS)
                pd_link_close(c, l, "a guest that took too long");
            else
                pd_wake_at(c, l->up_ms + PD_GUEST_MS);
        } else if (!l->hello_in) {
            uint64_t end = l->up_ms + PD_HELLO_WAIT_MS;
            end = end < c->calm_ms ? c->calm_ms : end;
            if (c->now >= end)
                pd_link_close(c, l, "no HELLO");
            else
                pd_wake_at(c, end);
        } else
            judge_silence(c, l);
    }
}
