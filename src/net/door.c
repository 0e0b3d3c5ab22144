/* door.c - the one file that includes zmq.h; see door.h.
 *
 * What libzmq 4.3.4 does that shapes this file and net.c:
 *   - it hides reconnects and loses what was in flight: RECONNECT_IVL = -1, one socket a dial
 *   - a ROUTER says nothing when a session begins or ends: it begins with its first frame, and its
 *     end is told by the monitor (DISCONNECTED with the descriptor) or by EHOSTUNREACH on a send
 *   - after zmq_poll the routing-id part has lost its User-Id: it is read from the payload part
 *   - there is no call to drop one inbound peer: its descriptor (ZMQ_SRCFD) is shut down
 *   - without MANDATORY a full peer loses frames silently, with it a blocking send waits for ever:
 *     MANDATORY and DONTWAIT
 *   - its heartbeats end in an assert of its when a connection breaks whose frames nobody took in
 * time (a stopped process; a pong is written to a socket that is no more): the kernel's keepalive
 * and the core's own pings do their work
 *   - HANDOVER lets one member take another's routing id: never
 *   - a ZAP answer 300 is told to nobody and both ends wait out the handshake timer: 500 for later
 */
#include "door.h"
#include "peerd/net.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    CURVE_BYTES = 33,   /* what CURVE adds to a message: name 8, nonce 8, MAC 16, flags 1 */
    THIN_BYTES = 16384, /* socket buffers: with SNDHWM 4 a silent peer holds about 150 KB */
    FAT_BYTES = 262144,
    ZAP_PARTS = 7, /* version, request id, domain, address, identity, mechanism, key */
    ZAP_PART_BYTES = 256,
};

struct pd_door {
    void *ctx, *zap, *router, *monitor;
    bool thin;
    zmq_msg_t msg;                   /* the frame that the caller borrows */
    uint8_t request[ZAP_PART_BYTES]; /* id of the ZAP request being answered */
    size_t n_request;
    size_t calls;
    zmq_pollitem_t *items;
};

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

/* What both kinds of socket are given. */
static bool set_common(const pd_door *d, void *s, uint8_t family) {
    int buf = d->thin ? THIN_BYTES : FAT_BYTES;
    int64_t most = PD_NET_FRAME_MAX + CURVE_BYTES;
    return set_int(s, ZMQ_LINGER, PD_DOOR_LINGER_MS) && set_int(s, ZMQ_HANDSHAKE_IVL, 10000) &&
           set_int(s, ZMQ_TCP_KEEPALIVE, 1) && set_int(s, ZMQ_TCP_KEEPALIVE_IDLE, 60) &&
           set_int(s, ZMQ_TCP_KEEPALIVE_INTVL, 20) && set_int(s, ZMQ_TCP_KEEPALIVE_CNT, 3) &&
           set_int(s, ZMQ_TCP_MAXRT, 60000) && set_int(s, ZMQ_SNDBUF, buf) &&
           set_int(s, ZMQ_RCVBUF, buf) && set_int(s, ZMQ_SNDHWM, 4) && set_int(s, ZMQ_RCVHWM, 16) &&
           set_int(s, ZMQ_IPV6, family == 6) &&
           zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &most, sizeof most) == 0;
}

/* A socket that tells of `events` on s, or NULL.  It never makes libzmq's thread wait. */
static void *monitor_of(pd_door *d, void *s, const char *name, int events) {
    void *m = zmq_socket(d->ctx, ZMQ_PAIR);
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

static void url_of(const pd_addr *a, char url[PD_ADDR_TEXT + 8]) {
    char text[PD_ADDR_TEXT];
    pd_addr_print(a, text);
    snprintf(url, PD_ADDR_TEXT + 8, "tcp://%s", text);
}

/* ---- open and close ---- */

pd_err pd_door_open(bool thin, uint32_t calls, pd_door **out) {
    pd_door *d = calloc(1, sizeof *d);
    if (!d)
        return pd_fail(PD_ENOMEM, "no memory for the transport");
    zmq_msg_init(&d->msg);
    d->thin = thin;
    d->calls = calls;
    d->items = calloc(3 + 2 * (size_t)calls + PD_DOOR_FDS, sizeof *d->items);
    d->ctx = zmq_ctx_new();
    if (!d->items || !d->ctx) {
        pd_door_free(d);
        return pd_fail(PD_ENOMEM, "no memory for the transport");
    }
    *out = d;
    return PD_OK;
}

void pd_door_free(pd_door *d) {
    if (!d)
        return;
    zmq_msg_close(&d->msg);
    if (d->monitor) {
        zmq_socket_monitor(d->router, NULL, 0);
        zmq_close(d->monitor);
    }
    if (d->router)
        zmq_close(d->router);
    if (d->zap)
        zmq_close(d->zap);
    if (d->ctx)
        zmq_ctx_term(d->ctx);
    free(d->items);
    free(d);
}

pd_err pd_door_reopen(pd_door *d, pd_addr *at) {
    char url[PD_ADDR_TEXT + 8], real[256];
    size_t n = sizeof real;
    url_of(at, url);
    if (zmq_bind(d->router, url) != 0) {
        if (errno == EADDRINUSE)
            return pd_fail(PD_EBUSY, "port %u is in use; choose another with --listen", at->port);
        if (errno == EACCES)
            return pd_fail(PD_EUSAGE,
                           "port %u is not ours to open; choose one above 1023 with "
                           "--listen",
                           at->port);
        if (errno == EADDRNOTAVAIL || errno == ENODEV)
            return pd_fail(PD_EUSAGE, "%s is no address of this machine; choose one with --listen",
                           url + 6);
        return pd_fail(PD_EIO, "cannot listen on %s: %s", url + 6, zmq_strerror(errno));
    }
    if (at->port == 0 && (zmq_getsockopt(d->router, ZMQ_LAST_ENDPOINT, real, &n) != 0 ||
                          strncmp(real, "tcp://", 6) != 0 || pd_addr_parse(real + 6, true, at)))
        return pd_fail(PD_EIO, "the system does not say which port it chose");
    return PD_OK;
}

void pd_door_shut(pd_door *d, const pd_addr *at) {
    char url[PD_ADDR_TEXT + 8];
    url_of(at, url);
    zmq_unbind(d->router, url);
}

pd_err pd_door_listen(pd_door *d, const uint8_t curve_sec[32], pd_addr *at) {
    d->zap = zmq_socket(d->ctx, ZMQ_REP);
    if (!d->zap || !set_int(d->zap, ZMQ_LINGER, 0) ||
        zmq_bind(d->zap, "inproc://zeromq.zap.01") != 0)
        return fail_zmq("open the gate for peers");
    void *r = d->router = zmq_socket(d->ctx, ZMQ_ROUTER);
    if (!r || !set_common(d, r, at->family) || !set_int(r, ZMQ_ROUTER_MANDATORY, 1) ||
        !set_int(r, ZMQ_ROUTER_HANDOVER, 0) || !set_int(r, ZMQ_BACKLOG, 64) ||
        !set_int(r, ZMQ_CURVE_SERVER, 1) ||
        zmq_setsockopt(r, ZMQ_CURVE_SECRETKEY, curve_sec, 32) != 0 ||
        zmq_setsockopt(r, ZMQ_ZAP_DOMAIN, "peerd", 5) != 0)
        return fail_zmq("open a socket for peers");
    d->monitor = monitor_of(d, r, "inproc://router", ZMQ_EVENT_DISCONNECTED);
    if (!d->monitor)
        return fail_zmq("watch the socket for peers");
    return pd_door_reopen(d, at);
}

/* ---- the gate: ZAP, RFC 27 ---- */

bool pd_door_asked(pd_door *d, uint8_t curve[32]) {
    uint8_t part[ZAP_PARTS][ZAP_PART_BYTES];
    int n[ZAP_PARTS] = {0}, parts = 0;
    bool more = d->zap != NULL;
    if (!more)
        return false;
    for (; more; parts++) {
        uint8_t beyond[1];
        int k = parts < ZAP_PARTS ? recv_part(d->zap, part[parts], ZAP_PART_BYTES, &more)
                                  : recv_part(d->zap, beyond, sizeof beyond, &more);
        if (k < 0)
            return false; /* messages come whole: nothing at all was there */
        if (parts < ZAP_PARTS)
            n[parts] = k;
    }
    d->n_request = n[1] <= ZAP_PART_BYTES ? (size_t)n[1] : ZAP_PART_BYTES;
    memcpy(d->request, part[1], d->n_request);
    memset(curve, 0, 32);
    if (parts == ZAP_PARTS && n[5] == 5 && memcmp(part[5], "CURVE", 5) == 0 && n[6] == 32)
        memcpy(curve, part[6], 32);
    return true;
}

void pd_door_answer(pd_door *d, pd_verdict v, const char *user) {
    const char *code = v == PD_ADMIT ? "200" : v == PD_LATER ? "500" : "400";
    zmq_send(d->zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(d->zap, d->request, d->n_request, ZMQ_SNDMORE);
    zmq_send(d->zap, code, 3, ZMQ_SNDMORE);
    zmq_send(d->zap, "", 0, ZMQ_SNDMORE);
    zmq_send(d->zap, user, strlen(user), ZMQ_SNDMORE);
    zmq_send(d->zap, "", 0, 0);
}

/* ---- frames ---- */

bool pd_door_ended(pd_door *d, int *fd) {
    uint16_t event;
    uint32_t value;
    if (!d->monitor || !monitor_next(d->monitor, &event, &value))
        return false;
    *fd = event == ZMQ_EVENT_DISCONNECTED ? (int)value : -1;
    return true;
}

/* Receive the payload part. */
static bool recv_frame(pd_door *d, void *s, pd_door_frame *out) {
    *out = (pd_door_frame){.fd = -1};
    if (zmq_msg_recv(&d->msg, s, ZMQ_DONTWAIT) < 0)
        return false;
    out->bytes = zmq_msg_data(&d->msg);
    out->n = zmq_msg_size(&d->msg);
    out->split = zmq_msg_more(&d->msg);
    skip_parts(s, out->split);
    return true;
}

bool pd_door_recv(pd_door *d, pd_door_frame *out) {
    uint8_t rid[PD_RID + 1];
    bool more;
    if (!d->router)
        return false;
    int n = recv_part(d->router, rid, sizeof rid, &more);
    if (n < 0 || !more || !recv_frame(d, d->router, out))
        return false;
    out->user = zmq_msg_gets(&d->msg, "User-Id");
    out->fd = zmq_msg_get(&d->msg, ZMQ_SRCFD);
    out->named = n != PD_RID || rid[0] != 0;
    memcpy(out->rid, rid, PD_RID);
    return true;
}

bool pd_call_recv(pd_door *d, pd_call *c, pd_door_frame *out) {
    return recv_frame(d, c->socket, out);
}

static pd_err sent(int r) {
    return r >= 0 ? PD_OK : errno == EAGAIN ? PD_EAGAIN : PD_EGONE;
}

pd_err pd_door_send(pd_door *d, const uint8_t rid[PD_RID], const void *p, size_t n) {
    int r = zmq_send(d->router, rid, PD_RID, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    return sent(r < 0 ? r : zmq_send(d->router, p, n, ZMQ_DONTWAIT));
}

pd_err pd_call_send(pd_call *c, const void *p, size_t n) {
    return sent(zmq_send(c->socket, p, n, ZMQ_DONTWAIT));
}

/* ---- calls ---- */

pd_err pd_call_open(pd_door *d, const pd_addr *to, const uint8_t server[32], const uint8_t pub[32],
                    const uint8_t sec[32], uint64_t id, pd_call *out) {
    char url[PD_ADDR_TEXT + 8], name[40];
    pd_call c = {.socket = zmq_socket(d->ctx, ZMQ_DEALER)};
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                 ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED;
    url_of(to, url);
    snprintf(name, sizeof name, "inproc://call-%llu", (unsigned long long)id);
    bool ok = c.socket && set_common(d, c.socket, to->family) &&
              set_int(c.socket, ZMQ_IMMEDIATE, 1) && set_int(c.socket, ZMQ_RECONNECT_IVL, -1) &&
              set_int(c.socket, ZMQ_CONNECT_TIMEOUT, 15000) &&
              zmq_setsockopt(c.socket, ZMQ_CURVE_SERVERKEY, server, 32) == 0 &&
              zmq_setsockopt(c.socket, ZMQ_CURVE_PUBLICKEY, pub, 32) == 0 &&
              zmq_setsockopt(c.socket, ZMQ_CURVE_SECRETKEY, sec, 32) == 0;
    if (ok)
        c.monitor = monitor_of(d, c.socket, name, events);
    if (ok && c.monitor && zmq_connect(c.socket, url) == 0) {
        *out = c;
        return PD_OK;
    }
    pd_err e = errno == EMFILE ? pd_fail(PD_EFULL, "no descriptor is left to dial with")
                               : fail_zmq("dial");
    pd_call_close(&c);
    return e;
}

void pd_call_close(pd_call *c) {
    if (c->monitor) {
        zmq_socket_monitor(c->socket, NULL, 0);
        zmq_close(c->monitor);
    }
    if (c->socket)
        zmq_close(c->socket);
    *c = (pd_call){0};
}

pd_call_news pd_call_next(pd_call *c) {
    uint16_t event;
    uint32_t value;
    if (!monitor_next(c->monitor, &event, &value))
        return PD_CALL_NONE;
    switch (event) {
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        return PD_CALL_UP;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return value == 500 ? PD_CALL_BUSY : PD_CALL_REFUSED;
    case ZMQ_EVENT_CLOSED:
        return PD_CALL_UNANSWERED;
    default:
        return PD_CALL_BROKEN;
    }
}

/* ---- waiting ---- */

static zmq_pollitem_t on(void *socket) {
    return (zmq_pollitem_t){.socket = socket, .events = ZMQ_POLLIN};
}

pd_err pd_door_wait(pd_door *d, int timeout_ms, const pd_call *const *calls, size_t n_calls,
                    struct pollfd *fds, size_t n_fds) {
    int n = 0;
    zmq_pollitem_t *it = d->items;
    assert(n_fds <= PD_DOOR_FDS && n_calls <= d->calls);
    for (size_t i = 0; i < n_fds; i++)
        it[n++] = (zmq_pollitem_t){
            .fd = fds[i].fd,
            .events = (short)((fds[i].events & POLLIN ? ZMQ_POLLIN : 0) |
                              (fds[i].events & POLLOUT ? ZMQ_POLLOUT : 0)),
        };
    if (d->router) {
        it[n++] = on(d->zap);
        it[n++] = on(d->router);
        it[n++] = on(d->monitor);
    }
    for (size_t i = 0; i < n_calls; i++) {
        it[n++] = on(calls[i]->socket);
        it[n++] = on(calls[i]->monitor);
    }
    int r = zmq_poll(it, n, timeout_ms);
    if (r < 0 && errno != EINTR)
        return fail_zmq("wait for peers");
    for (size_t i = 0; i < n_fds; i++)
        fds[i].revents = (short)(r <= 0 ? 0
                                        : (it[i].revents & ZMQ_POLLIN ? POLLIN : 0) |
                                              (it[i].revents & ZMQ_POLLOUT ? POLLOUT : 0) |
                                              (it[i].revents & ZMQ_POLLERR ? POLLERR : 0));
    return PD_OK;
}
