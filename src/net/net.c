/* net.c - sessions over libzmq; see net.h.  The one file that includes zmq.h.
 *
 * What libzmq 4.3.4 does that shapes this file:
 *   - it hides reconnects and loses what was in flight: RECONNECT_IVL = -1, one socket a dial
 *   - a ROUTER says nothing when a session begins or ends: it begins with its first frame, and its
 *     end is told by the monitor (DISCONNECTED with the descriptor) or by EHOSTUNREACH on a send
 *   - after zmq_poll the routing-id part has lost its User-Id: it is read from the payload part
 *   - there is no call to drop one inbound peer: its descriptor (ZMQ_SRCFD) is shut down, after a
 *     check that the address behind it is still the session's, since numbers are reused
 *   - without MANDATORY a full peer loses frames silently, with it a blocking send waits for ever:
 *     MANDATORY and DONTWAIT
 *   - HANDOVER lets one member take another's routing id: never; a peer that names itself is dropped
 */
#include "peerd/net.h"
#include "files.h"
#include "gate.h"
#include "peerd/file.h"
#include "peerd/log.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zmq.h>

enum {
    RID = 5,            /* routing ids that a ROUTER makes: 0 and a 32-bit counter */
    BURIED = 256,       /* routing ids of ended sessions whose last frames may still come */
    LINGER_MS = 300,    /* what was sent before a close may still leave */
    DIAL_MS = 30000,    /* connect 15 s, handshake 10 s, and to spare */
    RETRY_MS = 20,      /* a kept frame is tried again */
    WATCH_MS = 1000,    /* between two looks at the descriptors */
    SHUT_MS = 5000,     /* the door stays shut when they run short */
    FILES_PERCENT = 80, /* ... of the limit */
    EXTRA_FDS = 64,     /* of the caller, in pd_net_wait */
    ZAP_A_TURN = 32,
    CURVE_BYTES = 33, /* what CURVE adds to a message: name 8, nonce 8, MAC 16, flags 1 */
};

typedef enum session_state { FREE, DIALING, UP, LEAVING } session_state;

typedef struct session {
    session_state state;
    uint64_t id;
    bool outbound;
    bool over;              /* its end is known and still to be told, once its frames are read */
    bool mute;              /* its frames are dropped */
    uint64_t over_dry;      /* inbound: net->dry when `over` was set */
    void *dealer, *monitor; /* outbound */
    uint8_t rid[RID];       /* inbound */
    int fd;                 /* inbound: for the kick; -1 unknown */
    pd_addr addr;
    uint8_t peer[32];
    uint64_t invite;
    uint64_t deadline_ms; /* DIALING: give up; LEAVING: kick */
    uint8_t *kept;        /* the frame that libzmq did not take */
    size_t kept_n;
    char why[PD_NET_TEXT];
} session;

struct pd_net {
    void *ctx, *zap, *router, *router_monitor;
    pd_gate gate;
    uint8_t curve_pub[32], curve_sec[32];
    pd_addr listen;
    bool thin, shut;
    session *sessions;
    size_t sessions_max, turn; /* turn: whose events come next; 0 the ROUTER, i the session i-1 */
    uint64_t next_id;
    uint64_t dry; /* times that the ROUTER had no frame left */
    uint8_t buried[BURIED][RID];
    size_t bury_at;
    zmq_msg_t msg; /* the frame that the caller borrows */
    session *held; /* its session was just announced; the frame comes next */
    uint64_t watch_ms, reopen_ms;
    pd_net_stats stats;
    zmq_pollitem_t *items;
};

/* ---- small helpers -------------------------------------------------------------------------- */

static bool set_int(void *s, int option, int v) {
    return zmq_setsockopt(s, option, &v, sizeof v) == 0;
}

static pd_err fail_zmq(const char *what) {
    return pd_fail(errno == ENOMEM ? PD_ENOMEM : PD_EIO, "cannot %s: %s", what,
                   zmq_strerror(errno));
}

/* Receive one part into buf; the number of its bytes (more than room: cut), or -1: none. */
static int recv_part(void *s, void *buf, size_t room, bool *more) {
    int n = zmq_recv(s, buf, room, ZMQ_DONTWAIT), flag = 0;
    size_t len = sizeof flag;
    if (n >= 0)
        zmq_getsockopt(s, ZMQ_RCVMORE, &flag, &len);
    *more = flag != 0;
    return n;
}

static void skip_parts(void *s, bool more) {
    char b[8];
    while (more)
        if (recv_part(s, b, sizeof b, &more) < 0)
            return;
}

/* Both kinds of socket: the recipe with its reasons is at the head of the file and in net.h. */
static bool set_common(const pd_net *net, void *s, uint8_t family) {
    int buf = net->thin ? 16384 : 262144;
    return set_int(s, ZMQ_LINGER, LINGER_MS) && set_int(s, ZMQ_HANDSHAKE_IVL, 10000) &&
           set_int(s, ZMQ_HEARTBEAT_IVL, 30000) && set_int(s, ZMQ_HEARTBEAT_TIMEOUT, 60000) &&
           set_int(s, ZMQ_TCP_MAXRT, 60000) && set_int(s, ZMQ_SNDBUF, buf) &&
           set_int(s, ZMQ_RCVBUF, buf) && set_int(s, ZMQ_SNDHWM, 4) && set_int(s, ZMQ_RCVHWM, 16) &&
           set_int(s, ZMQ_IPV6, family == 6) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &(int64_t){PD_NET_FRAME_MAX + CURVE_BYTES},
                          sizeof(int64_t)) == 0;
}

/* A socket that tells of `events` on s, or NULL.  It never makes libzmq's thread wait. */
static void *monitor_of(pd_net *net, void *s, const char *name, int events) {
    void *m = zmq_socket(net->ctx, ZMQ_PAIR);
    if (m && set_int(m, ZMQ_LINGER, 0) && set_int(m, ZMQ_RCVHWM, 0) &&
        zmq_socket_monitor(s, name, events) == 0 && zmq_connect(m, name) == 0)
        return m;
    if (m)
        zmq_close(m);
    return NULL;
}

/* The next event of a monitor; false: none. */
static bool monitor_next(void *m, uint16_t *event, uint32_t *value) {
    uint8_t b[6];
    bool more;
    if (recv_part(m, b, sizeof b, &more) != (int)sizeof b)
        return false;
    memcpy(event, b, 2);
    memcpy(value, b + 2, 4);
    skip_parts(m, more);
    return true;
}

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

/* ---- sessions ------------------------------------------------------------------------------- */

static session *session_find(pd_net *net, uint64_t id) {
    for (size_t i = 0; i < net->sessions_max; i++)
        if (net->sessions[i].state != FREE && net->sessions[i].id == id)
            return &net->sessions[i];
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

static void bury(pd_net *net, const uint8_t rid[RID]) {
    memcpy(net->buried[net->bury_at++ % BURIED], rid, RID);
}

static bool is_buried(const pd_net *net, const uint8_t rid[RID]) {
    for (size_t i = 0; i < BURIED; i++)
        if (memcmp(net->buried[i], rid, RID) == 0)
            return true;
    return false;
}

static void kick(int fd, const pd_addr *addr) {
    pd_addr now = addr_of_fd(fd);
    if (now.family && pd_addr_equal(&now, addr))
        shutdown(fd, SHUT_RDWR);
}

/* Let the connection go and the slot be free. */
static void session_free(pd_net *net, session *s) {
    if (s->monitor) {
        zmq_socket_monitor(s->dealer, NULL, 0);
        zmq_close(s->monitor);
    }
    if (s->dealer)
        zmq_close(s->dealer);
    if (!s->outbound) {
        bury(net, s->rid);
        kick(s->fd, &s->addr);
    }
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

static void event_of(const session *s, pd_net_kind kind, pd_net_event *out) {
    *out = (pd_net_event){.kind = kind,
                          .session = s->id,
                          .outbound = s->outbound,
                          .invite = s->invite,
                          .addr = s->addr};
    memcpy(out->peer, s->peer, 32);
    if (kind == PD_NET_DOWN || kind == PD_NET_DIAL_FAILED)
        memcpy(out->text, s->why, sizeof s->why);
}

/* ---- open and close -------------------------------------------------------------------------- */

static pd_err bind_router(pd_net *net) {
    char addr[PD_ADDR_TEXT], url[PD_ADDR_TEXT + 8];
    pd_addr_print(&net->listen, addr);
    snprintf(url, sizeof url, "tcp://%s", addr);
    if (zmq_bind(net->router, url) != 0) {
        if (errno == EADDRINUSE)
            return pd_fail(PD_EBUSY, "port %u is in use; choose another with --listen",
                           net->listen.port);
        if (errno == EACCES)
            return pd_fail(PD_EUSAGE,
                           "port %u is not ours to open; choose one above 1023 with --listen",
                           net->listen.port);
        if (errno == EADDRNOTAVAIL || errno == ENODEV)
            return pd_fail(PD_EUSAGE, "%s is no address of this machine; choose one with --listen",
                           addr);
        return pd_fail(PD_EIO, "cannot listen on %s: %s", addr, zmq_strerror(errno));
    }
    char real[256];
    size_t n = sizeof real;
    if (net->listen.port == 0 &&
        (zmq_getsockopt(net->router, ZMQ_LAST_ENDPOINT, real, &n) != 0 ||
         strncmp(real, "tcp://", 6) != 0 || pd_addr_parse(real + 6, true, &net->listen)))
        return pd_fail(PD_EIO, "the system does not say which port it chose");
    return PD_OK;
}

static pd_err open_router(pd_net *net) {
    net->zap = zmq_socket(net->ctx, ZMQ_REP);
    if (!net->zap || !set_int(net->zap, ZMQ_LINGER, 0) ||
        zmq_bind(net->zap, "inproc://zeromq.zap.01") != 0)
        return fail_zmq("open the gate for peers");
    void *r = net->router = zmq_socket(net->ctx, ZMQ_ROUTER);
    if (!r || !set_common(net, r, net->listen.family) || !set_int(r, ZMQ_ROUTER_MANDATORY, 1) ||
        !set_int(r, ZMQ_ROUTER_HANDOVER, 0) || !set_int(r, ZMQ_BACKLOG, 64) ||
        !set_int(r, ZMQ_CURVE_SERVER, 1) ||
        zmq_setsockopt(r, ZMQ_CURVE_SECRETKEY, net->curve_sec, 32) != 0 ||
        zmq_setsockopt(r, ZMQ_ZAP_DOMAIN, "peerd", 5) != 0)
        return fail_zmq("open a socket for peers");
    net->router_monitor = monitor_of(net, r, "inproc://router", ZMQ_EVENT_DISCONNECTED);
    if (!net->router_monitor)
        return fail_zmq("watch the socket for peers");
    return bind_router(net);
}

pd_err pd_net_open(const pd_net_conf *conf, pd_net **out) {
    pd_net *net = calloc(1, sizeof *net);
    if (!net)
        return pd_fail(PD_ENOMEM, "no memory for the transport");
    net->thin = conf->thin;
    net->listen = conf->listen;
    net->next_id = 1;
    net->sessions_max = conf->sessions_max ? conf->sessions_max : PD_NET_SESSIONS;
    net->sessions = calloc(net->sessions_max, sizeof *net->sessions);
    net->items = calloc(3 + 2 * net->sessions_max + EXTRA_FDS, sizeof *net->items);
    zmq_msg_init(&net->msg);
    pd_gate_init(&net->gate, conf->handshakes_per_s ? conf->handshakes_per_s : 20, pd_clock_ms());
    net->stats.files_max = pd_files_raise();
    net->ctx = zmq_ctx_new();
    pd_err e = PD_OK;
    if (!net->sessions || !net->items || !net->ctx)
        e = pd_fail(PD_ENOMEM, "no memory for the transport");
    if (!e)
        e = pd_curve_secret(conf->identity, net->curve_sec);
    if (!e)
        e = pd_curve_public(conf->identity->pub, net->curve_pub);
    if (!e && net->listen.family)
        e = open_router(net);
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
    zmq_msg_close(&net->msg);
    for (size_t i = 0; net->sessions && i < net->sessions_max; i++) {
        net->sessions[i].fd = -1; /* its last frames may leave; the ROUTER's end closes it */
        if (net->sessions[i].state != FREE)
            session_free(net, &net->sessions[i]);
    }
    if (net->router_monitor) {
        zmq_socket_monitor(net->router, NULL, 0);
        zmq_close(net->router_monitor);
    }
    if (net->router)
        zmq_close(net->router);
    if (net->zap)
        zmq_close(net->zap);
    if (net->ctx)
        zmq_ctx_term(net->ctx);
    pd_gate_finish(&net->gate);
    pd_wipe(net->curve_sec, sizeof net->curve_sec);
    free(net->sessions);
    free(net->items);
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

/* ---- the gate -------------------------------------------------------------------------------- */

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
            session_over(net, s, "its key is no longer admitted");
        }
    }
}

void pd_net_deny_guest(pd_net *net, uint64_t invite) {
    pd_gate_deny(&net->gate, NULL, invite);
}

/* Answer one ZAP request (RFC 27): version, request id, domain, address, identity, mechanism, key. */
static bool answer_zap(pd_net *net, uint64_t now) {
    uint8_t part[7][256];
    int n[7] = {0}, parts = 0;
    bool more = true;
    while (more) {
        uint8_t beyond[1];
        int k = parts < 7 ? recv_part(net->zap, part[parts], 256, &more)
                          : recv_part(net->zap, beyond, sizeof beyond, &more);
        if (k < 0)
            return false; /* libzmq hands over whole messages: nothing at all was there */
        if (parts < 7)
            n[parts] = k;
        parts++;
    }
    pd_gate_answer a = PD_GATE_REFUSE;
    const pd_gate_entry *who = NULL;
    char user[PD_GATE_USER] = "";
    if (parts == 7 && n[1] <= 256 && n[5] == 5 && memcmp(part[5], "CURVE", 5) == 0 && n[6] == 32)
        a = pd_gate_ask(&net->gate, part[6], now, &who);
    if (a == PD_GATE_ADMIT)
        pd_gate_user(who, user);
    net->stats.admitted += a == PD_GATE_ADMIT;
    net->stats.refused += a == PD_GATE_REFUSE;
    net->stats.retried += a == PD_GATE_RETRY;
    /* not 300 for later: libzmq tells the peer nothing then, and both wait out the handshake timer */
    const char *code = a == PD_GATE_ADMIT ? "200" : a == PD_GATE_RETRY ? "500" : "400";
    zmq_send(net->zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(net->zap, part[1], (size_t)n[1], ZMQ_SNDMORE);
    zmq_send(net->zap, code, 3, ZMQ_SNDMORE);
    zmq_send(net->zap, "", 0, ZMQ_SNDMORE);
    zmq_send(net->zap, user, strlen(user), ZMQ_SNDMORE);
    zmq_send(net->zap, "", 0, 0);
    return true;
}

/* ---- dial, send, close ------------------------------------------------------------------------ */

static bool connect_dealer(pd_net *net, session *s, const uint8_t server[32], const uint8_t pub[32],
                           const uint8_t sec[32]) {
    char addr[PD_ADDR_TEXT], url[PD_ADDR_TEXT + 8], name[40];
    void *d = s->dealer = zmq_socket(net->ctx, ZMQ_DEALER);
    pd_addr_print(&s->addr, addr);
    snprintf(url, sizeof url, "tcp://%s", addr);
    snprintf(name, sizeof name, "inproc://dial-%llu", (unsigned long long)s->id);
    if (!d || !set_common(net, d, s->addr.family) || !set_int(d, ZMQ_IMMEDIATE, 1) ||
        !set_int(d, ZMQ_RECONNECT_IVL, -1) || !set_int(d, ZMQ_CONNECT_TIMEOUT, 15000) ||
        zmq_setsockopt(d, ZMQ_CURVE_SERVERKEY, server, 32) != 0 ||
        zmq_setsockopt(d, ZMQ_CURVE_PUBLICKEY, pub, 32) != 0 ||
        zmq_setsockopt(d, ZMQ_CURVE_SECRETKEY, sec, 32) != 0)
        return false;
    s->monitor =
        monitor_of(net, d, name,
                   ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                       ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                       ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED);
    return s->monitor && zmq_connect(d, url) == 0;
}

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
    bool ok = guest ? connect_dealer(net, s, server, pub, sec)
                    : connect_dealer(net, s, server, net->curve_pub, net->curve_sec);
    pd_wipe(sec, sizeof sec);
    if (!ok) {
        e = errno == EMFILE ? pd_fail(PD_EFULL, "no descriptor left to dial with")
                            : fail_zmq("dial");
        session_free(net, s);
        return e;
    }
    *id = s->id;
    return PD_OK;
}

/* Offer a frame to libzmq: PD_OK, PD_EAGAIN (full) or PD_EGONE. */
static pd_err offer(pd_net *net, session *s, const uint8_t *p, size_t n) {
    int r = s->outbound ? 0 : zmq_send(net->router, s->rid, RID, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (r >= 0)
        r = zmq_send(s->outbound ? s->dealer : net->router, p, n, ZMQ_DONTWAIT);
    if (r >= 0)
        return PD_OK;
    if (errno == EAGAIN)
        return PD_EAGAIN;
    session_over(net, s, "the connection is lost");
    return PD_EGONE;
}

pd_err pd_net_send(pd_net *net, uint64_t id, const void *bytes, size_t n) {
    assert(n > 0 && n <= PD_NET_FRAME_MAX);
    session *s = session_find(net, id);
    if (!s || s->state != UP || s->over)
        return pd_fail(PD_EGONE, "the session is no more");
    if (s->kept)
        return pd_fail(PD_EFULL, "the peer has not taken the frame before");
    pd_err e = offer(net, s, bytes, n);
    if (e == PD_EGONE)
        return pd_fail(e, "the session is no more");
    if (e == PD_EAGAIN) {
        s->kept = malloc(n);
        if (!s->kept)
            return pd_fail(PD_ENOMEM, "no memory to keep a frame");
        memcpy(s->kept, bytes, n);
        s->kept_n = n;
        return pd_fail(PD_EAGAIN, "the peer's buffers are full");
    }
    return PD_OK;
}

void pd_net_close(pd_net *net, uint64_t id) {
    session *s = session_find(net, id);
    if (!s || s->state == LEAVING)
        return;
    if (net->held == s)
        net->held = NULL;
    if (s->outbound || s->over) {
        session_free(net, s);
        return;
    }
    s->state = LEAVING; /* a ROUTER has no linger for one peer: the kick waits */
    s->mute = true;
    s->deadline_ms = pd_clock_ms() + LINGER_MS;
}

/* ---- the turn ---------------------------------------------------------------------------------- */

static void drain_router_monitor(pd_net *net) {
    uint16_t event;
    uint32_t fd;
    while (monitor_next(net->router_monitor, &event, &fd)) {
        if (event != ZMQ_EVENT_DISCONNECTED)
            continue;
        for (size_t i = 0; i < net->sessions_max; i++) {
            session *s = &net->sessions[i];
            if (s->state == FREE || s->outbound || s->fd != (int)fd)
                continue;
            s->fd = -1;
            if (s->state == LEAVING)
                session_free(net, s);
            else
                session_over(net, s, "the peer's end closed");
        }
    }
}

/* Shut the door for a while when descriptors run short: an accept that fails spins libzmq's thread. */
static void watch_files(pd_net *net, uint64_t now) {
    char addr[PD_ADDR_TEXT], url[PD_ADDR_TEXT + 8];
    if (net->shut && now >= net->reopen_ms) {
        net->shut = bind_router(net) != PD_OK;
        if (net->shut)
            net->reopen_ms = now + SHUT_MS;
        net->stats.listening = !net->shut;
    }
    if (now < net->watch_ms)
        return;
    net->watch_ms = now + WATCH_MS;
    net->stats.files = pd_files_used();
    if (net->shut || !net->router ||
        net->stats.files * 100ull <= net->stats.files_max * (uint64_t)FILES_PERCENT)
        return;
    pd_addr_print(&net->listen, addr);
    snprintf(url, sizeof url, "tcp://%s", addr);
    zmq_unbind(net->router, url);
    net->shut = true;
    net->stats.listening = false;
    net->reopen_ms = now + SHUT_MS;
    pd_warn("%u of %u file descriptors are in use: not accepting peers for %d s (raise the limit "
            "with ulimit -n)",
            net->stats.files, net->stats.files_max, SHUT_MS / 1000);
}

/* Name the peer of a first frame by what the gate answered; NULL: the frame is dropped. */
static session *session_inbound(pd_net *net, const uint8_t rid[RID]) {
    const char *user = zmq_msg_gets(&net->msg, "User-Id");
    int fd = zmq_msg_get(&net->msg, ZMQ_SRCFD);
    pd_addr addr = addr_of_fd(fd);
    uint8_t peer[32];
    uint64_t invite;
    if (!user || !pd_gate_user_read(user, peer, &invite)) {
        kick(fd, &addr);
        return NULL;
    }
    for (size_t i = 0; i < net->sessions_max;
         i++) { /* a descriptor serves one session: the newest */
        session *old = &net->sessions[i];
        if (old->state != FREE && !old->outbound && old->fd == fd) {
            old->fd = -1;
            session_over(net, old, "the peer's end closed");
        }
    }
    session *s = session_new(net, UP, false);
    if (!s) {
        pd_warn("all %zu sessions are taken: a peer is turned away", net->sessions_max);
        kick(fd, &addr);
        bury(net, rid);
        return NULL;
    }
    memcpy(s->rid, rid, RID);
    memcpy(s->peer, peer, 32);
    s->invite = invite;
    s->fd = fd;
    s->addr = addr;
    return s;
}

static session *session_by_rid(pd_net *net, const uint8_t rid[RID]) {
    for (size_t i = 0; i < net->sessions_max; i++) {
        session *s = &net->sessions[i];
        if (s->state != FREE && !s->outbound && memcmp(s->rid, rid, RID) == 0)
            return s;
    }
    return NULL;
}

static void frame_event(pd_net *net, const session *s, pd_net_event *out) {
    event_of(s, PD_NET_FRAME, out);
    out->bytes = zmq_msg_data(&net->msg);
    out->n = zmq_msg_size(&net->msg);
}

/* Take one frame from the ROUTER.  true: *out is filled; false: none, or one was dropped (*dropped). */
static bool router_next(pd_net *net, pd_net_event *out, bool *dropped) {
    uint8_t rid[RID + 1];
    bool more;
    int n = recv_part(net->router, rid, sizeof rid, &more);
    *dropped = n >= 0;
    if (n < 0) {
        net->dry++;
        return false;
    }
    if (!more || zmq_msg_recv(&net->msg, net->router, ZMQ_DONTWAIT) < 0)
        return false;
    bool split = zmq_msg_more(&net->msg);
    skip_parts(net->router, split);
    if (n != RID || rid[0] != 0) { /* it named itself: no honest peer does */
        int fd = zmq_msg_get(&net->msg, ZMQ_SRCFD);
        shutdown(fd, SHUT_RDWR);
        return false;
    }
    session *s = session_by_rid(net, rid);
    bool fresh = !s;
    if (fresh) {
        if (is_buried(net, rid))
            return false;
        drain_router_monitor(net); /* earlier sessions on the same descriptor end first */
        s = session_inbound(net, rid);
        if (!s)
            return false;
    }
    if (split && !s->over) {
        s->mute = true;
        session_over(net, s, "it sent a message of several parts");
    }
    if (s->mute)
        return false;
    if (fresh) {
        net->held = s;
        event_of(s, PD_NET_UP, out);
    } else {
        frame_event(net, s, out);
    }
    return true;
}

/* Read what a dialled socket's monitor has to say; true: the session is up, *out is filled. */
static bool dial_news(pd_net *net, session *s, pd_net_event *out) {
    uint16_t event;
    uint32_t value;
    while (monitor_next(s->monitor, &event, &value)) {
        bool up = s->state == UP;
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED && !up) {
            s->state = UP;
            event_of(s, PD_NET_UP, out);
            return true;
        }
        if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
            session_over(
                net, s, value == 500 ? "it asks to come back later" : "it does not admit this key");
        else if (event == ZMQ_EVENT_CLOSED && !up)
            session_over(net, s, "nothing answers there");
        else if (event == ZMQ_EVENT_DISCONNECTED && up)
            session_over(net, s, "the peer's end closed");
        else if (event != ZMQ_EVENT_CLOSED && event != ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
            session_over(net, s, "no handshake: another key or another program listens there");
    }
    return false;
}

/* Tell of a session's end and free it. */
static bool tell_over(pd_net *net, session *s, pd_net_event *out) {
    event_of(s, s->state == DIALING ? PD_NET_DIAL_FAILED : PD_NET_DOWN, out);
    session_free(net, s);
    return true;
}

/* The next event of one session: timers, its kept frame, and, for an outbound one, news and frames. */
static bool session_next(pd_net *net, session *s, uint64_t now, pd_net_event *out) {
    if (s->state == LEAVING && now >= s->deadline_ms)
        session_free(net, s);
    if (s->state == FREE || s->state == LEAVING)
        return false;
    if (s->state == DIALING && now >= s->deadline_ms)
        session_over(net, s, "no answer in time");
    if (s->kept && !s->over && offer(net, s, s->kept, s->kept_n) == PD_OK) {
        free(s->kept);
        s->kept = NULL;
        event_of(s, PD_NET_FLOWING, out);
        return true;
    }
    if (!s->outbound)
        return s->over && (s->mute || net->dry > s->over_dry) && tell_over(net, s, out);
    if (dial_news(net, s, out))
        return true;
    while (s->state == UP && !s->mute && zmq_msg_recv(&net->msg, s->dealer, ZMQ_DONTWAIT) >= 0) {
        if (zmq_msg_more(&net->msg)) {
            skip_parts(s->dealer, true);
            s->mute = true;
            session_over(net, s, "it sent a message of several parts");
            break;
        }
        frame_event(net, s, out);
        return true;
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
    if (net->router) {
        for (int i = 0; i < ZAP_A_TURN && answer_zap(net, now); i++) {
        }
        drain_router_monitor(net);
    }
    for (size_t i = 0; i <= net->sessions_max; i++) {
        size_t turn = net->turn;
        net->turn = turn == net->sessions_max ? 0 : turn + 1;
        bool dropped = true;
        if (turn > 0) {
            if (session_next(net, &net->sessions[turn - 1], now, out))
                return true;
            continue;
        }
        for (int k = 0; net->router && dropped && k < 64; k++)
            if (router_next(net, out, &dropped))
                return true;
    }
    return false;
}

/* Longest wait that misses none of our own timers. */
static int wait_bound(const pd_net *net, int timeout_ms, uint64_t now) {
    uint64_t t = timeout_ms < 0 ? WATCH_MS : (uint64_t)timeout_ms;
    if (t > WATCH_MS)
        t = WATCH_MS;
    for (size_t i = 0; i < net->sessions_max; i++) {
        const session *s = &net->sessions[i];
        uint64_t left = t;
        if (s->state == FREE)
            continue;
        if (s->over)
            return 0;
        if (s->kept)
            left = RETRY_MS;
        else if (s->state != UP)
            left = s->deadline_ms > now ? s->deadline_ms - now : 0;
        if (left < t)
            t = left;
    }
    return (int)t;
}

pd_err pd_net_wait(pd_net *net, int timeout_ms, struct pollfd *fds, size_t n_fds) {
    assert(n_fds <= EXTRA_FDS);
    int n = 0;
    zmq_pollitem_t *it = net->items;
    for (size_t i = 0; i < n_fds; i++)
        it[n++] = (zmq_pollitem_t){.fd = fds[i].fd,
                                   .events = (short)((fds[i].events & POLLIN ? ZMQ_POLLIN : 0) |
                                                     (fds[i].events & POLLOUT ? ZMQ_POLLOUT : 0))};
    if (net->router) {
        it[n++] = (zmq_pollitem_t){.socket = net->zap, .events = ZMQ_POLLIN};
        it[n++] = (zmq_pollitem_t){.socket = net->router, .events = ZMQ_POLLIN};
        it[n++] = (zmq_pollitem_t){.socket = net->router_monitor, .events = ZMQ_POLLIN};
    }
    for (size_t i = 0; i < net->sessions_max; i++)
        if (net->sessions[i].state != FREE && net->sessions[i].outbound) {
            it[n++] = (zmq_pollitem_t){.socket = net->sessions[i].dealer, .events = ZMQ_POLLIN};
            it[n++] = (zmq_pollitem_t){.socket = net->sessions[i].monitor, .events = ZMQ_POLLIN};
        }
    int t = net->held ? 0 : wait_bound(net, timeout_ms, pd_clock_ms());
    if (zmq_poll(it, n, t) < 0 && errno != EINTR)
        return fail_zmq("wait for peers");
    for (size_t i = 0; i < n_fds; i++)
        fds[i].revents = (short)((it[i].revents & ZMQ_POLLIN ? POLLIN : 0) |
                                 (it[i].revents & ZMQ_POLLOUT ? POLLOUT : 0) |
                                 (it[i].revents & ZMQ_POLLERR ? POLLERR : 0));
    return PD_OK;
}
