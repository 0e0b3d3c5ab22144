/* net.c - sessions: numbers, ends, kept frames, who may come in; see net.h.
 *
 * libzmq itself, and what it does that shapes this file, is behind door.h.
 */
#include "peerd/net.h"
#include "door.h"
#include "files.h"
#include "gate.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    BURIED = 256,       /* routing ids of ended sessions whose last frames may still come */
    DIAL_MS = 30000,    /* connect 15 s, handshake 10 s, and to spare */
    RETRY_MS = 20,      /* kept frames are tried again */
    WATCH_MS = 1000,    /* between two looks at the descriptors */
    SHUT_MS = 5000,     /* the door stays shut when they run short ... */
    FILES_PERCENT = 80, /* ... of the limit */
    ASKED_A_TURN = 32,
    DROPPED_A_TURN = 64,
    HANDSHAKES_PER_S = 20,
};

typedef enum session_state { FREE, DIALING, UP, LEAVING } session_state;

typedef struct session {
    session_state state;
    uint64_t id;
    bool outbound;
    bool over;           /* its end is known and still to be told, once its frames are read */
    bool mute;           /* its frames are dropped */
    bool refused;        /* outbound: the gate there does not admit the key used */
    uint64_t over_dry;   /* inbound: net->dry when `over` was set */
    pd_call call;        /* outbound */
    uint8_t rid[PD_RID]; /* inbound */
    int fd;              /* inbound: for the kick; -1 unknown */
    pd_addr addr;
    uint8_t peer[32];
    uint64_t invite;
    uint64_t deadline_ms;   /* DIALING: give up; LEAVING: kick */
    uint8_t *kept;          /* frames that libzmq did not take: size LE32 | bytes, ... */
    size_t kept_n, kept_at; /* kept_at: the first that has not left */
    char why[PD_NET_TEXT];
} session;

struct pd_net {
    pd_door *door;
    pd_gate gate;
    uint8_t curve_pub[32], curve_sec[32];
    pd_addr listen;
    bool shut;
    session *sessions;
    const pd_call **calls; /* of pd_net_wait */
    size_t sessions_max;
    size_t turn; /* whose events come next: 0 those who dialled us, i the session i-1 */
    uint64_t next_id;
    uint64_t dry; /* times that those who dialled us had no frame left */
    uint8_t buried[BURIED][PD_RID];
    size_t bury_at;
    pd_door_frame frame; /* the one that the caller borrows */
    session *held;       /* its session was just announced; the frame comes next */
    uint64_t watch_ms, reopen_ms;
    pd_net_stats stats;
};

/* ---- descriptors ---- */

static pd_addr addr_of_fd(int fd) {
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    pd_addr a = {0};
    if (fd < 0 || getpeername(fd, (struct sockaddr *)&ss, &len) != 0)
        return a;
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&ss;
        a.family = 4;
        memcpy(a.ip, &in->sin_addr, 4);
        a.port = ntohs(in->sin_port);
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&ss;
        bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
        a.family = mapped ? 4 : 6;
        memcpy(a.ip, (const uint8_t *)&in6->sin6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
        a.port = ntohs(in6->sin6_port);
    }
    return a;
}

/* End a connection, if the address behind the number is still the one we know: descriptor numbers
 * are reused, and libzmq gives no other handle on one peer.
 */
static void kick(int fd, const pd_addr *addr) {
    pd_addr now = addr_of_fd(fd);
    if (now.family && pd_addr_equal(&now, addr))
        shutdown(fd, SHUT_RDWR);
}

/* Shut the door for a while when descriptors run short: accepts that fail spin libzmq's thread. */
static void watch_files(pd_net *net, uint64_t now) {
    if (!net->listen.family)
        return;
    if (net->shut && now >= net->reopen_ms) {
        net->shut = pd_door_reopen(net->door, &net->listen) != PD_OK;
        net->reopen_ms = now + SHUT_MS;
        if (net->shut)
            pd_warn("%s", pd_fail_text());
    }
    if (now >= net->watch_ms) {
        net->watch_ms = now + WATCH_MS;
        net->stats.files = pd_files_used();
        uint64_t limit = (uint64_t)net->stats.files_max * FILES_PERCENT / 100;
        if (!net->shut && net->stats.files > limit) {
            pd_door_shut(net->door, &net->listen);
            net->shut = true;
            net->reopen_ms = now + SHUT_MS;
            pd_warn("%u of %u file descriptors are in use: not accepting peers for %d s (raise "
                    "the limit with ulimit -n)",
                    net->stats.files, net->stats.files_max, SHUT_MS / 1000);
        }
    }
    net->stats.listening = !net->shut;
}

/* ---- sessions ---- */

static session *session_find(pd_net *net, uint64_t id) {
    for (size_t i = 0; i < net->sessions_max; i++)
        if (net->sessions[i].state != FREE && net->sessions[i].id == id)
            return &net->sessions[i];
    return NULL;
}

static session *session_by_rid(pd_net *net, const uint8_t rid[PD_RID]) {
    for (size_t i = 0; i < net->sessions_max; i++) {
        session *s = &net->sessions[i];
        if (s->state != FREE && !s->outbound && memcmp(s->rid, rid, PD_RID) == 0)
            return s;
    }
    return NULL;
}

static session *session_new(pd_net *net, session_state state, bool outbound) {
    for (size_t i = 0; i < net->sessions_max; i++)
        if (net->sessions[i].state == FREE) {
            session *s = &net->sessions[i];
            *s = (session){.state = state, .outbound = outbound, .id = net->next_id++, .fd = -1};
            return s;
        }
    return NULL;
}

static void bury(pd_net *net, const uint8_t rid[PD_RID]) {
    memcpy(net->buried[net->bury_at++ % BURIED], rid, PD_RID);
}

static bool is_buried(const pd_net *net, const uint8_t rid[PD_RID]) {
    for (size_t i = 0; i < BURIED; i++)
        if (memcmp(net->buried[i], rid, PD_RID) == 0)
            return true;
    return false;
}

/* Let the connection go and the slot be free. */
static void session_free(pd_net *net, session *s) {
    if (s->outbound) {
        pd_call_close(&s->call);
    } else {
        bury(net, s->rid);
        kick(s->fd, &s->addr);
    }
    if (net->held == s)
        net->held = NULL;
    free(s->kept);
    *s = (session){0};
}

/* Note the end of a session; the first reason stands. */
static void session_over(pd_net *net, session *s, const char *why) {
    if (s->over)
        return;
    s->over = true;
    s->over_dry = net->dry;
    snprintf(s->why, sizeof s->why, "%s", why);
}

static bool event_of(const session *s, pd_net_kind kind, pd_net_event *out) {
    *out = (pd_net_event){.kind = kind,
                          .session = s->id,
                          .outbound = s->outbound,
                          .refused = s->refused,
                          .invite = s->invite,
                          .addr = s->addr};
    memcpy(out->peer, s->peer, 32);
    if (kind == PD_NET_DOWN || kind == PD_NET_DIAL_FAILED)
        memcpy(out->text, s->why, sizeof s->why);
    return true;
}

static bool frame_event(pd_net *net, const session *s, pd_net_event *out) {
    event_of(s, PD_NET_FRAME, out);
    out->bytes = net->frame.bytes;
    out->n = net->frame.n;
    return true;
}

/* ---- open and close ---- */

pd_err pd_net_open(const pd_net_conf *conf, pd_net **out) {
    pd_net *net = calloc(1, sizeof *net);
    if (!net)
        return pd_fail(PD_ENOMEM, "no memory for the transport");
    net->listen = conf->listen;
    net->next_id = 1;
    net->sessions_max = conf->sessions_max ? conf->sessions_max : PD_NET_SESSIONS;
    net->sessions = calloc(net->sessions_max, sizeof *net->sessions);
    net->calls = calloc(net->sessions_max, sizeof *net->calls);
    pd_gate_init(&net->gate, conf->handshakes_per_s ? conf->handshakes_per_s : HANDSHAKES_PER_S,
                 pd_clock_ms());
    net->stats.files_max = pd_files_raise();
    pd_err e = net->sessions && net->calls
                   ? pd_door_open(conf->thin, (uint32_t)net->sessions_max, &net->door)
                   : pd_fail(PD_ENOMEM, "no memory for the transport");
    if (!e)
        e = pd_curve_secret(conf->identity, net->curve_sec);
    if (!e)
        e = pd_curve_public(conf->identity->pub, net->curve_pub);
    if (!e && net->listen.family)
        e = pd_door_listen(net->door, net->curve_sec, &net->listen);
    if (e) {
        pd_net_free(net);
        return e;
    }
    net->stats.listening = net->listen.family != 0;
    *out = net;
    return PD_OK;
}

void pd_net_free(pd_net *net) {
    if (!net)
        return;
    for (size_t i = 0; net->sessions && i < net->sessions_max; i++) {
        net->sessions[i].fd = -1; /* no kick: its last frames may leave while the door closes */
        if (net->sessions[i].state != FREE)
            session_free(net, &net->sessions[i]);
    }
    pd_door_free(net->door);
    pd_gate_finish(&net->gate);
    pd_wipe(net->curve_sec, sizeof net->curve_sec);
    free(net->sessions);
    free(net->calls);
    free(net);
}

pd_addr pd_net_listening(const pd_net *net) {
    return net->listen;
}

void pd_net_stats_get(const pd_net *net, pd_net_stats *out) {
    *out = net->stats;
    out->sessions = out->dialing = 0;
    for (size_t i = 0; i < net->sessions_max; i++) {
        out->sessions += net->sessions[i].state == UP && !net->sessions[i].over;
        out->dialing += net->sessions[i].state == DIALING;
    }
}

/* ---- the gate ---- */

pd_err pd_net_allow(pd_net *net, const uint8_t ed_pub[32]) {
    uint8_t curve[32];
    pd_err e = pd_curve_public(ed_pub, curve);
    return e ? e : pd_gate_allow(&net->gate, curve, ed_pub, 0);
}

pd_err pd_net_allow_guest(pd_net *net, const uint8_t curve_pub[32], uint64_t invite) {
    assert(invite != 0);
    return pd_gate_allow(&net->gate, curve_pub, curve_pub, invite);
}

void pd_net_deny(pd_net *net, const uint8_t ed_pub[32]) {
    pd_gate_deny(&net->gate, ed_pub, 0);
    for (size_t i = 0; i < net->sessions_max; i++) {
        session *s = &net->sessions[i];
        if (s->state == UP && !s->invite && memcmp(s->peer, ed_pub, 32) == 0) {
            s->mute = true;
            if (net->held == s)
                net->held = NULL;
            session_over(net, s, "its key is no longer admitted");
        }
    }
}

void pd_net_deny_guest(pd_net *net, uint64_t invite) {
    pd_gate_deny(&net->gate, NULL, invite);
}

static void answer_gate(pd_net *net, uint64_t now) {
    uint8_t curve[32];
    for (int i = 0; i < ASKED_A_TURN && pd_door_asked(net->door, curve); i++) {
        const pd_gate_entry *who = NULL;
        char user[PD_GATE_USER] = "";
        pd_verdict v = pd_gate_ask(&net->gate, curve, now, &who);
        if (v == PD_ADMIT)
            pd_gate_user(who, user);
        net->stats.admitted += v == PD_ADMIT;
        net->stats.refused += v == PD_REFUSE;
        net->stats.retried += v == PD_LATER;
        pd_door_answer(net->door, v, user);
    }
}

/* ---- dial, send, close ---- */

pd_err pd_net_dial(pd_net *net, const pd_addr *addr, const uint8_t peer[32], const uint8_t *guest,
                   uint64_t *id) {
    uint8_t server[32], pub[32], sec[32];
    pd_err e = pd_curve_public(peer, server);
    if (e)
        return e;
    session *s = session_new(net, DIALING, true);
    if (!s)
        return pd_fail(PD_EFULL, "all %zu sessions are taken", net->sessions_max);
    s->addr = *addr;
    memcpy(s->peer, peer, 32);
    s->deadline_ms = pd_clock_ms() + DIAL_MS;
    if (guest)
        pd_curve_from_ticket(guest, pub, sec);
    e = pd_call_open(net->door, addr, server, guest ? pub : net->curve_pub,
                     guest ? sec : net->curve_sec, s->id, &s->call);
    pd_wipe(sec, sizeof sec);
    if (e)
        session_free(net, s);
    else
        *id = s->id;
    return e;
}

/* Offer a frame to libzmq: PD_OK, PD_EAGAIN (full) or PD_EGONE. */
static pd_err offer(pd_net *net, session *s, const uint8_t *p, size_t n) {
    pd_err e = s->outbound ? pd_call_send(&s->call, p, n) : pd_door_send(net->door, s->rid, p, n);
    if (e == PD_EGONE)
        session_over(net, s, "the connection is lost");
    return e;
}

/* Behind what is kept already: the core learns that a session is clogged only after the step in
 * which it said several things. */
static pd_err keep(session *s, const uint8_t *p, size_t n) {
    if (s->kept_n + 4 + n > PD_NET_KEPT_MAX)
        return pd_fail(PD_EFULL, "the peer has not taken what was sent before");
    uint8_t *more = realloc(s->kept, s->kept_n + 4 + n);
    if (!more)
        return pd_fail(PD_ENOMEM, "no memory to keep a frame");
    s->kept = more;
    pd_store32(more + s->kept_n, (uint32_t)n);
    memcpy(more + s->kept_n + 4, p, n);
    s->kept_n += 4 + n;
    return pd_fail(PD_EAGAIN, "the peer's buffers are full");
}

/* What is kept leaves in its order; true: all of it has. */
static bool flush(pd_net *net, session *s) {
    while (s->kept_at < s->kept_n) {
        uint32_t n = pd_load32(s->kept + s->kept_at);
        if (offer(net, s, s->kept + s->kept_at + 4, n) != PD_OK)
            return false;
        s->kept_at += 4 + n;
    }
    free(s->kept);
    s->kept = NULL;
    s->kept_n = s->kept_at = 0;
    return true;
}

pd_err pd_net_send(pd_net *net, uint64_t id, const void *bytes, size_t n) {
    assert(n > 0 && n <= PD_NET_FRAME_MAX);
    session *s = session_find(net, id);
    if (!s || s->state != UP || s->over)
        return pd_fail(PD_EGONE, "the session is no more");
    pd_err e = s->kept ? PD_EAGAIN : offer(net, s, bytes, n);
    if (e == PD_EGONE)
        return pd_fail(e, "the session is no more");
    return e == PD_EAGAIN ? keep(s, bytes, n) : e;
}

void pd_net_close(pd_net *net, uint64_t id) {
    session *s = session_find(net, id);
    if (!s || s->state == LEAVING)
        return;
    if (s->outbound || s->over) {
        session_free(net, s);
        return;
    }
    if (net->held == s)
        net->held = NULL;
    s->state = LEAVING; /* a ROUTER has no linger for one peer: the kick waits */
    s->mute = true;
    s->deadline_ms = pd_clock_ms() + PD_DOOR_LINGER_MS;
}

/* ---- those who dialled us ---- */

static void take_ends(pd_net *net) {
    for (int fd; pd_door_ended(net->door, &fd);)
        for (size_t i = 0; fd >= 0 && i < net->sessions_max; i++) {
            session *s = &net->sessions[i];
            if (s->state == FREE || s->outbound || s->fd != fd)
                continue;
            s->fd = -1;
            if (s->state == LEAVING)
                session_free(net, s);
            else
                session_over(net, s, "the peer's end closed");
        }
}

/* Begin the session of a first frame, named by what the gate answered; NULL: it is dropped. */
static session *session_inbound(pd_net *net, const pd_door_frame *f) {
    pd_addr addr = addr_of_fd(f->fd);
    uint8_t peer[32];
    uint64_t invite;
    take_ends(net); /* earlier sessions on the same descriptor end first */
    for (size_t i = 0; i < net->sessions_max; i++) {
        session *old = &net->sessions[i];
        if (old->state != FREE && !old->outbound && old->fd == f->fd) {
            old->fd = -1;
            session_over(net, old, "the peer's end closed");
        }
    }
    bool named = f->user && pd_gate_user_read(f->user, peer, &invite);
    session *s = named ? session_new(net, UP, false) : NULL;
    if (!s) {
        if (named)
            pd_warn("all %zu sessions are taken: a peer is turned away", net->sessions_max);
        kick(f->fd, &addr);
        bury(net, f->rid);
        return NULL;
    }
    memcpy(s->rid, f->rid, PD_RID);
    memcpy(s->peer, peer, 32);
    s->invite = invite;
    s->fd = f->fd;
    s->addr = addr;
    return s;
}

/* One frame of those who dialled us; true: *out is filled.  *more: there was one, taken or not. */
static bool inbound_next(pd_net *net, pd_net_event *out, bool *more) {
    pd_door_frame *f = &net->frame;
    *more = pd_door_recv(net->door, f);
    if (!*more) {
        net->dry++;
        return false;
    }
    if (f->named) {
        pd_addr addr = addr_of_fd(f->fd);
        kick(f->fd, &addr);
        return false;
    }
    session *s = session_by_rid(net, f->rid);
    bool fresh = !s;
    if (fresh && !is_buried(net, f->rid))
        s = session_inbound(net, f);
    if (!s)
        return false;
    if (f->split && !s->mute) {
        s->mute = true;
        session_over(net, s, "it sent a message of several parts");
    }
    if (s->mute)
        return false;
    if (!fresh)
        return frame_event(net, s, out);
    net->held = s;
    return event_of(s, PD_NET_UP, out);
}

/* ---- the turn ---- */

/* Read what is new of a dial; true: the session is up, *out is filled. */
static bool call_news(pd_net *net, session *s, pd_net_event *out) {
    for (;;) {
        bool up = s->state == UP;
        switch (pd_call_next(&s->call)) {
        case PD_CALL_NONE:
            return false;
        case PD_CALL_UP:
            if (up)
                break;
            s->state = UP;
            return event_of(s, PD_NET_UP, out);
        case PD_CALL_REFUSED:
            s->refused = !up;
            session_over(net, s, "it does not admit this key");
            break;
        case PD_CALL_BUSY:
            session_over(net, s, "it asks to come back later");
            break;
        case PD_CALL_UNANSWERED:
            if (!up)
                session_over(net, s, "nothing answers there");
            break;
        case PD_CALL_BROKEN:
            session_over(net, s,
                         up ? "the peer's end closed"
                            : "no handshake: another key or another program listens there");
            break;
        }
    }
}

/* Tell of a session's end and free it. */
static bool tell_over(pd_net *net, session *s, pd_net_event *out) {
    event_of(s, s->state == DIALING ? PD_NET_DIAL_FAILED : PD_NET_DOWN, out);
    session_free(net, s);
    return true;
}

/* The next event of one session: timers, its kept frames, and of an outbound one news and frames.
 */
static bool session_next(pd_net *net, session *s, uint64_t now, pd_net_event *out) {
    if (s->state == LEAVING && now >= s->deadline_ms)
        session_free(net, s);
    if (s->state == FREE || s->state == LEAVING)
        return false;
    if (s->state == DIALING && now >= s->deadline_ms)
        session_over(net, s, "no answer in time");
    if (s->kept && !s->over && flush(net, s))
        return event_of(s, PD_NET_FLOWING, out);
    if (!s->outbound)
        return s->over && (s->mute || net->dry > s->over_dry) && tell_over(net, s, out);
    if (call_news(net, s, out))
        return true;
    if (s->state == UP && !s->mute && pd_call_recv(net->door, &s->call, &net->frame)) {
        if (!net->frame.split)
            return frame_event(net, s, out);
        s->mute = true;
        session_over(net, s, "it sent a message of several parts");
    }
    return s->over && tell_over(net, s, out);
}

bool pd_net_next(pd_net *net, pd_net_event *out) {
    uint64_t now = pd_clock_ms();
    if (net->held) {
        frame_event(net, net->held, out);
        net->held = NULL;
        return true;
    }
    watch_files(net, now);
    answer_gate(net, now);
    take_ends(net);
    for (size_t i = 0; i <= net->sessions_max; i++) {
        size_t turn = net->turn;
        net->turn = turn == net->sessions_max ? 0 : turn + 1;
        if (turn > 0 && session_next(net, &net->sessions[turn - 1], now, out))
            return true;
        bool more = turn == 0;
        for (int k = 0; more && k < DROPPED_A_TURN; k++)
            if (inbound_next(net, out, &more))
                return true;
    }
    return false;
}

/* Longest wait that misses none of our own timers. */
static int wait_bound(const pd_net *net, int timeout_ms, uint64_t now) {
    uint64_t t = timeout_ms < 0 || timeout_ms > WATCH_MS ? WATCH_MS : (uint64_t)timeout_ms;
    for (size_t i = 0; i < net->sessions_max; i++) {
        const session *s = &net->sessions[i];
        uint64_t left = t;
        if (s->state == FREE)
            continue;
        if (s->over)
            left = 0;
        else if (s->kept)
            left = RETRY_MS;
        else if (s->state != UP)
            left = s->deadline_ms > now ? s->deadline_ms - now : 0;
        if (left < t)
            t = left;
    }
    return net->held ? 0 : (int)t;
}

pd_err pd_net_wait(pd_net *net, int timeout_ms, struct pollfd *fds, size_t n_fds) {
    size_t n = 0;
    for (size_t i = 0; i < net->sessions_max; i++)
        if (net->sessions[i].state != FREE && net->sessions[i].outbound)
            net->calls[n++] = &net->sessions[i].call;
    return pd_door_wait(net->door, wait_bound(net, timeout_ms, pd_clock_ms()), net->calls, n, fds,
                        n_fds);
}
