/* watch.c - state changes as log lines; see watch.h. */
#include "watch.h"
#include "node.h"
#include "peerd/file.h"
#include "peerd/log.h"
#include "records.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LOOK_MS = 1000,
    SMOOTH_MS = 10000,  /* rates forget with this time */
    DIALS_FOR_LINE = 3, /* failed in a row: a member has several addresses, and one may do */
};

/* ---- what happens ---- */

static pd_watched *by_key(pd_watch *w, const uint8_t key[32]) {
    for (uint32_t i = 0; i < w->n; i++)
        if (memcmp(w->peer[i].now.key, key, 32) == 0)
            return &w->peer[i];
    return NULL;
}

static pd_watched *by_session(pd_watch *w, uint64_t session) {
    for (uint32_t i = 0; session && i < w->n; i++)
        if (w->peer[i].now.session == session)
            return &w->peer[i];
    return NULL;
}

static const char *name_of(const pd_watched *p, char key[17]) {
    if (*p->now.name)
        return p->now.name;
    pd_hex(p->now.key, 4, key);
    return key;
}

static void dial_failed(pd_watched *p, const pd_net_event *x) {
    char key[17], addr[PD_ADDR_TEXT];
    if (p->now.link != PD_LINK_UP &&
        p->now.link != PD_LINK_SUSPECT) /* else its end is unsaid yet */
        snprintf(p->why, sizeof p->why, "%s", x->text);
    if (++p->failed_dials != DIALS_FOR_LINE)
        return;
    pd_addr_print(&x->addr, addr);
    pd_info("%s cannot be reached at %s: %s (tried again, less and less often)", name_of(p, key),
            addr, x->text);
}

void pd_watch_net(pd_node *n, const pd_net_event *x) {
    pd_watched *p = x->invite ? NULL : by_key(&n->watch, x->peer);
    switch (x->kind) {
    case PD_NET_UP:
        if (!x->outbound && !x->invite) {
            n->watch.called_ms = pd_clock_ms();
            n->watch.called_from = x->addr;
        }
        if (p)
            p->failed_dials = 0;
        break;
    case PD_NET_DOWN:
        if (p && p->now.session == x->session)
            snprintf(p->why, sizeof p->why, "%s", x->text);
        break;
    case PD_NET_DIAL_FAILED:
        if (p)
            dial_failed(p, x);
        break;
    case PD_NET_FRAME:
    case PD_NET_FLOWING:
        break;
    }
}

void pd_watch_close(pd_node *n, const pd_action *a) {
    pd_watched *p = by_session(&n->watch, a->session);
    if (p && a->text)
        snprintf(p->why, sizeof p->why, "%s", a->text);
}

void pd_watch_seal(pd_node *n, const pd_action *a) {
    pd_watch *w = &n->watch;
    if (a->stream != PD_STREAM_GRADIENTS)
        return;
    uint32_t most = n->opts.seal_records ? n->opts.seal_records : PD_PENDING_MAX;
    bool by_count = a->n >= most;
    w->sealed_ms = pd_clock_ms();
    if (by_count && !w->by_count)
        pd_info("sealing at every %u records: they come faster than the sealing time", most);
    if (!by_count && w->by_count)
        pd_info("sealing by time again");
    w->by_count = by_count;
}

/* ---- what has changed since the last look ---- */

static void say_left(const pd_node *n, const pd_watched *p, const char *name) {
    uint8_t next[32];
    char key[17];
    if (!pd_records_next_key(n->site->ledger, p->now.key, next)) {
        pd_info("%s has left the run: it said goodbye for good", name);
        return;
    }
    pd_hex(next, 4, key);
    pd_info("%s has passed its place on to its next key, %s", name, key);
}

static void say_member(const pd_node *n, const pd_watched *p, const pd_peer_status *now) {
    pd_member_state was = p->now.member;
    char key[17];
    const char *name = name_of(p, key);
    unsigned long long quiet_min = p->now.quiet_ms / 60000;
    if (now->member == was)
        return;
    switch (now->member) {
    case PD_MEMBER_HERE:
        if (was == PD_MEMBER_LEFT || was == PD_MEMBER_BANNED)
            pd_info("%s is in the run again", name);
        else
            pd_info("%s is here again, after %llu min of silence", name, quiet_min);
        break;
    case PD_MEMBER_AWAY:
        pd_info("%s is away: nothing heard of it for %llu min", name, quiet_min);
        break;
    case PD_MEMBER_GONE:
        pd_info("%s is gone: nothing heard of it for %llu h; it counts no longer", name,
                quiet_min / 60);
        break;
    case PD_MEMBER_LEFT:
        say_left(n, p, name);
        break;
    case PD_MEMBER_BANNED: /* the core says so, and why */
        break;
    }
}

static bool is_up(const pd_peer_status *p) {
    return p->link == PD_LINK_UP || p->link == PD_LINK_SUSPECT;
}

static void say_link(const pd_watched *p, const pd_peer_status *now) {
    char key[17];
    const char *name = name_of(p, key), *why = *p->why ? p->why : "the session ended";
    bool was = is_up(&p->now), is = is_up(now);
    if (is && !was)
        pd_info("link to %s is up (%s)", name, now->outbound ? "we dialled" : "it dialled");
    else if (was && !is)
        pd_info("link to %s is down: %s", name, why);
    else if (is && now->session != p->now.session)
        pd_info("link to %s is new: %s", name, why);
    else if (is && now->link == PD_LINK_SUSPECT && p->now.link == PD_LINK_UP)
        pd_info("link to %s is suspect: nothing has come over it for %llu s", name,
                (unsigned long long)now->link_quiet_ms / 1000);
    else if (is && now->link == PD_LINK_UP && p->now.link == PD_LINK_SUSPECT)
        pd_info("link to %s is well again", name);
}

/* Of silence for good the core itself says why. */
static void say_voice(pd_watch *w, const pd_core_status *s) {
    bool speaks = s->voice == PD_VOICE_SPEAKING;
    if (s->voice == PD_VOICE_LISTENING && strcmp(w->silent, s->why) != 0) {
        pd_info("listening: %s", s->why);
        snprintf(w->silent, sizeof w->silent, "%s", s->why);
    }
    if (speaks && (!w->at_ms || w->voice != PD_VOICE_SPEAKING) && !s->members)
        pd_info("speaking: nobody else is in the run yet");
    w->voice = s->voice;
}

/* ---- the look ---- */

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

/* Room for one more; without memory the newest members are not watched, and nothing else. */
static bool grow(pd_watch *w) {
    if (w->n < w->room)
        return true;
    uint32_t room = w->room ? 2 * w->room : 16;
    pd_watched *p = realloc(w->peer, room * sizeof *p);
    if (!p)
        return false;
    w->peer = p;
    w->room = room;
    return true;
}

static void look_at(pd_node *n, uint32_t i, const pd_peer_status *now, uint64_t ms) {
    pd_watch *w = &n->watch;
    if (i == w->n) {
        w->peer[w->n++] = (pd_watched){.now = *now};
        w->peer[i].now.link = PD_LINK_NONE; /* so that a link that is up already is said */
        w->peer[i].now.session = 0;
    }
    pd_watched *p = &w->peer[i];
    memcpy(p->now.name, now->name, sizeof p->now.name); /* a newcomer's may just have come */
    say_member(n, p, now);
    say_link(p, now);
    if (is_up(now))
        p->why[0] = 0;
    p->now = *now;
    measure(&p->rate, ms, now->bytes_in, now->bytes_out);
}

bool pd_watch_look(pd_node *n) {
    pd_watch *w = &n->watch;
    uint64_t now = pd_clock_ms();
    pd_core_status s;
    pd_peer_status p;
    if (w->at_ms && now - w->at_ms < LOOK_MS)
        return false;
    pd_core_status_get(n->core, now, &s);
    say_voice(w, &s);
    for (uint32_t i = 0; pd_core_peer_get(n->core, now, i, &p) && (i < w->n || grow(w)); i++)
        look_at(n, i, &p, now);
    measure(&w->rate, now, s.bytes_in, s.bytes_out);
    w->at_ms = now;
    return true;
}

void pd_watch_finish(pd_watch *w) {
    free(w->peer);
    *w = (pd_watch){0};
}
