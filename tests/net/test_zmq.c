/* test_zmq.c - real sockets on loopback: who gets in, what breaks, what it costs.
 *
 * Hostile peers are made with libzmq itself, since ours cannot misbehave.  Started as
 * `test_zmq --echo PORT SEED`, the program is a peer to be killed.
 */
#include "../unit/test.h"
#include "peerd/file.h"
#include "peerd/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <zmq.h>

enum { LOG_MAX = 4096, WAIT_MS = 10000 };

extern char **environ;

/* A net and what it told so far. */
typedef struct node {
    pd_net *net;
    pd_identity id;
    pd_net_event log[LOG_MAX]; /* bytes of a FRAME are not kept; its first 8 are in `text` */
    size_t n, seen;
} node;

static pd_addr local(uint16_t port) {
    return (pd_addr){.family = 4, .ip = {127, 0, 0, 1}, .port = port};
}

static void node_open_conf(node *x, uint8_t seed, pd_net_conf conf) {
    uint8_t s[32];
    memset(s, seed, 32);
    x->n = x->seen = 0;
    ck_assert_int_eq(pd_crypto_init(), PD_OK);
    pd_identity_from_seed(s, &x->id);
    conf.identity = &x->id;
    ck_assert_msg(pd_net_open(&conf, &x->net) == PD_OK, "%s", pd_fail_text());
}

static void node_open(node *x, uint8_t seed, bool listening) {
    node_open_conf(x, seed,
                   (pd_net_conf){.listen = listening ? local(0) : (pd_addr){0},
                                 .thin = true,
                                 .handshakes_per_s = 10000});
}

static void node_allow(node *x, const node *y) {
    ck_assert_int_eq(pd_net_allow(x->net, y->id.pub), PD_OK);
}

static uint64_t node_dial(node *x, const node *to) {
    uint64_t id;
    pd_addr a = pd_net_listening(to->net);
    ck_assert_msg(pd_net_dial(x->net, &a, to->id.pub, NULL, &id) == PD_OK, "%s", pd_fail_text());
    return id;
}

static void turn(node *x, int timeout_ms) {
    pd_net_event e;
    ck_assert_int_eq(pd_net_wait(x->net, timeout_ms, NULL, 0), PD_OK);
    for (int i = 0; i < 64 && pd_net_next(x->net, &e); i++) {
        ck_assert_uint_lt(x->n, LOG_MAX);
        if (e.kind == PD_NET_FRAME)
            snprintf(e.text, sizeof e.text, "%.*s", (int)(e.n < 100 ? e.n : 100),
                     (const char *)e.bytes);
        x->log[x->n++] = e;
    }
}

/* The next unseen event of a kind at x, while all nodes take turns; NULL after timeout_ms. */
static pd_net_event *expect(node *x, pd_net_kind kind, node **all, size_t n_all, int timeout_ms) {
    uint64_t until = pd_clock_ms() + (uint64_t)timeout_ms;
    for (;;) {
        while (x->seen < x->n)
            if (x->log[x->seen++].kind == kind)
                return &x->log[x->seen - 1];
        if (pd_clock_ms() >= until)
            return NULL;
        for (size_t i = 0; i < n_all; i++)
            turn(all[i], 1);
    }
}
#define EXPECT(x, kind, ...)                                                                       \
    expect(x, kind, (node *[]){__VA_ARGS__}, sizeof((node *[]){__VA_ARGS__}) / sizeof(node *),     \
           WAIT_MS)
#define NEVER(x, kind, ...)                                                                        \
    ck_assert(expect(x, kind, (node *[]){__VA_ARGS__},                                             \
                     sizeof((node *[]){__VA_ARGS__}) / sizeof(node *), 300) == NULL)

static void say(node *x, uint64_t session, const char *text) {
    ck_assert_msg(pd_net_send(x->net, session, text, strlen(text) + 1) == PD_OK, "%s",
                  pd_fail_text());
}

static node a, b, c; /* large; used by one test at a time */

/* Two members talk: both are told who the other is, frames arrive whole and in order. */
START_TEST(members_talk_both_ways) {
    node_open(&a, 1, true);
    node_open(&b, 2, true);
    node_allow(&a, &b);
    uint64_t out = node_dial(&b, &a);
    pd_net_event *e = EXPECT(&b, PD_NET_UP, &a, &b);
    ck_assert(e && e->session == out && e->outbound && e->invite == 0);
    ck_assert_mem_eq(e->peer, a.id.pub, 32);
    say(&b, out, "hello");
    e = EXPECT(&a, PD_NET_UP, &a, &b);
    ck_assert(e && !e->outbound && e->invite == 0);
    ck_assert_mem_eq(e->peer, b.id.pub, 32);
    ck_assert(pd_addr_is_loopback(&e->addr) && e->addr.port != 0);
    uint64_t in = e->session;
    e = EXPECT(&a, PD_NET_FRAME, &a, &b);
    ck_assert(e && e->session == in);
    ck_assert_str_eq(e->text, "hello");
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof text, "n%d", i);
        pd_err r = pd_net_send(a.net, in, text, strlen(text) + 1);
        if (r == PD_EAGAIN)
            ck_assert(EXPECT(&a, PD_NET_FLOWING, &a, &b) != NULL);
        else
            ck_assert_int_eq(r, PD_OK);
    }
    for (int i = 0; i < 100; i++) {
        char text[16];
        snprintf(text, sizeof text, "n%d", i);
        e = EXPECT(&b, PD_NET_FRAME, &a, &b);
        ck_assert(e != NULL);
        ck_assert_str_eq(e->text, text);
    }
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* A farewell that is sent and followed by a close must arrive, whoever closes. */
START_TEST(what_was_sent_before_a_close_arrives) {
    for (int inbound_closes = 0; inbound_closes < 2; inbound_closes++) {
        node_open(&a, 1, true);
        node_open(&b, 2, false);
        node_allow(&a, &b);
        uint64_t out = node_dial(&b, &a);
        ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
        say(&b, out, "hello");
        uint64_t in = EXPECT(&a, PD_NET_UP, &a, &b)->session;
        node *from = inbound_closes ? &a : &b, *to = inbound_closes ? &b : &a;
        uint64_t there = inbound_closes ? in : out;
        ck_assert(EXPECT(&a, PD_NET_FRAME, &a, &b) != NULL);
        for (int i = 0; i < 3; i++)
            say(from, there, "bye");
        pd_net_close(from->net, there);
        ck_assert_int_eq(pd_net_send(from->net, there, "x", 1), PD_EGONE);
        for (int i = 0; i < 3; i++)
            ck_assert(EXPECT(to, PD_NET_FRAME, &a, &b) != NULL);
        pd_net_event *e = EXPECT(to, PD_NET_DOWN, &a, &b);
        ck_assert(e && e->session == (inbound_closes ? out : in) && e->text[0]);
        NEVER(from, PD_NET_DOWN, &a, &b);
        pd_net_stats st;
        pd_net_stats_get(a.net, &st);
        ck_assert_uint_eq(st.sessions, 0);
        pd_net_free(a.net);
        pd_net_free(b.net);
    }
}
END_TEST

/* The gate: a stranger's dial fails with a reason and not one byte of it is seen. */
START_TEST(strangers_stay_outside) {
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_open(&c, 3, true);
    node_allow(&a, &b);
    node_dial(&c, &a);
    pd_net_event *e = EXPECT(&c, PD_NET_DIAL_FAILED, &a, &c);
    ck_assert(e != NULL);
    ck_assert_str_eq(e->text, "it does not admit this key");
    ck_assert(e->refused);
    ck_assert_uint_eq(a.n, 0);
    pd_net_stats st;
    pd_net_stats_get(a.net, &st);
    ck_assert_uint_eq(st.refused, 1);
    pd_addr where = pd_net_listening(a.net); /* the right place with another's key */
    uint64_t id;
    ck_assert_int_eq(pd_net_dial(b.net, &where, c.id.pub, NULL, &id), PD_OK);
    e = EXPECT(&b, PD_NET_DIAL_FAILED, &a, &b);
    ck_assert(e && strstr(e->text, "another key") && !e->refused);
    pd_net_free(c.net);
    node_open(&c, 3, true);
    where = pd_net_listening(c.net); /* nobody there any more */
    pd_net_free(c.net);
    ck_assert_int_eq(pd_net_dial(b.net, &where, c.id.pub, NULL, &id), PD_OK);
    e = EXPECT(&b, PD_NET_DIAL_FAILED, &a, &b);
    ck_assert(e && e->session == id);
    ck_assert_str_eq(e->text, "nothing answers there");
    ck_assert(!e->refused);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* A ticket's key opens the door until the invite is denied; the welcome under way goes on. */
START_TEST(guests_come_in_by_their_ticket) {
    uint8_t secret[16], pub[32], sec[32];
    uint64_t id;
    memset(secret, 9, 16);
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    pd_curve_from_ticket(secret, pub, sec);
    ck_assert_int_eq(pd_net_allow_guest(a.net, pub, 77), PD_OK);
    pd_addr where = pd_net_listening(a.net);
    ck_assert_int_eq(pd_net_dial(b.net, &where, a.id.pub, secret, &id), PD_OK);
    ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
    say(&b, id, "join");
    pd_net_event *e = EXPECT(&a, PD_NET_UP, &a, &b);
    ck_assert(e && e->invite == 77);
    ck_assert_mem_eq(e->peer, pub, 32);
    pd_net_deny_guest(a.net, 77);
    say(&a, e->session, "welcome");
    ck_assert(EXPECT(&b, PD_NET_FRAME, &a, &b) != NULL);
    ck_assert_int_eq(pd_net_dial(b.net, &where, a.id.pub, secret, &id), PD_OK);
    ck_assert(EXPECT(&b, PD_NET_DIAL_FAILED, &a, &b) != NULL);
    node_allow(&a, &b); /* and then by its own key */
    id = node_dial(&b, &a);
    ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
    say(&b, id, "member");
    e = EXPECT(&a, PD_NET_UP, &a, &b);
    ck_assert(e && e->invite == 0);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

START_TEST(a_denied_member_is_out_at_once) {
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    uint64_t id = node_dial(&b, &a);
    ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
    say(&b, id, "hello");
    ck_assert(EXPECT(&a, PD_NET_FRAME, &a, &b) != NULL);
    pd_net_deny(a.net, b.id.pub);
    (void)!pd_net_send(b.net, id, "late", 5);
    pd_sleep_ms(50);
    ck_assert(EXPECT(&a, PD_NET_DOWN, &a, &b) != NULL);
    ck_assert(EXPECT(&b, PD_NET_DOWN, &a, &b) != NULL);
    node_dial(&b, &a);
    ck_assert(EXPECT(&b, PD_NET_DIAL_FAILED, &a, &b) != NULL);
    NEVER(&a, PD_NET_FRAME, &a, &b);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

static int raw_connect(uint16_t port) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof in) == 0);
    return fd;
}

/* Whoever finds the port can write what he likes to it. */
START_TEST(garbage_does_no_harm) {
    /* a ZMTP 3 greeting with the NULL mechanism, then a READY command */
    static const uint8_t null_greeting[64 + 7] = {0xff, 0,    0, 0, 0,   0,   0,   0,
                                                  1,    0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    uint16_t port = pd_net_listening(a.net).port;
    int fds[50];
    for (int i = 0; i < 150; i++) {
        uint8_t noise[300];
        int fd = raw_connect(port);
        pd_random(noise, sizeof noise);
        if (i % 3 == 1)
            memcpy(noise, null_greeting, sizeof null_greeting);
        if (i % 3 == 2) { /* a good greeting, then noise where CURVE's HELLO belongs */
            memcpy(noise, null_greeting, 12);
            memset(noise + 12, 0, 52);
            memcpy(noise + 12, "CURVE", 5);
        }
        (void)!send(fd, noise, sizeof noise, MSG_NOSIGNAL);
        if (i < 50)
            fds[i] = fd;
        else
            close(fd);
        turn(&a, 0);
    }
    uint64_t id = node_dial(&b, &a);
    ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
    say(&b, id, "still here");
    ck_assert(EXPECT(&a, PD_NET_FRAME, &a, &b) != NULL);
    ck_assert_uint_eq(a.n, 2); /* that session and that frame, and nothing else ever */
    for (int i = 0; i < 50; i++)
        close(fds[i]);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* A member's key in the hands of a program that is not ours. */
static void *hostile(void *ctx, const node *key, const node *to, const char *rid) {
    char url[PD_ADDR_TEXT + 8], addr[PD_ADDR_TEXT];
    uint8_t server[32], pub[32], sec[32];
    pd_addr where = pd_net_listening(to->net);
    void *s = zmq_socket(ctx, ZMQ_DEALER);
    ck_assert(pd_curve_public(to->id.pub, server) == PD_OK &&
              pd_curve_public(key->id.pub, pub) == PD_OK &&
              pd_curve_secret(&key->id, sec) == PD_OK);
    zmq_setsockopt(s, ZMQ_LINGER, &(int){0}, sizeof(int));
    zmq_setsockopt(s, ZMQ_RCVHWM, &(int){1}, sizeof(int));
    zmq_setsockopt(s, ZMQ_RCVBUF, &(int){16384}, sizeof(int));
    zmq_setsockopt(s, ZMQ_RECONNECT_IVL, &(int){-1}, sizeof(int));
    zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, server, 32);
    zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, pub, 32);
    zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, sec, 32);
    if (rid)
        zmq_setsockopt(s, ZMQ_ROUTING_ID, rid, strlen(rid));
    pd_addr_print(&where, addr);
    snprintf(url, sizeof url, "tcp://%s", addr);
    ck_assert_int_eq(zmq_connect(s, url), 0);
    return s;
}

/* Authenticated peers are not trusted either: too long, in parts, under a name of its own. */
START_TEST(hostile_members_lose_their_session) {
    static uint8_t big[PD_NET_FRAME_MAX + 1];
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    void *ctx = zmq_ctx_new(), *s = hostile(ctx, &b, &a, NULL);
    zmq_send(s, "ok", 3, 0);
    ck_assert(EXPECT(&a, PD_NET_FRAME, &a) != NULL);
    zmq_send(s, big, PD_NET_FRAME_MAX, 0); /* as long as may be */
    ck_assert(EXPECT(&a, PD_NET_FRAME, &a) != NULL);
    zmq_send(s, big, sizeof big, 0);
    ck_assert(EXPECT(&a, PD_NET_DOWN, &a) != NULL);
    zmq_close(s);

    s = hostile(ctx, &b, &a, NULL);
    zmq_send(s, "ok", 3, 0);
    ck_assert(EXPECT(&a, PD_NET_FRAME, &a) != NULL);
    zmq_send(s, "one", 4, ZMQ_SNDMORE);
    zmq_send(s, "two", 4, 0);
    pd_net_event *e = EXPECT(&a, PD_NET_DOWN, &a);
    ck_assert(e && strstr(e->text, "several parts"));
    zmq_close(s);

    size_t before = a.n;
    s = hostile(ctx, &b, &a, "its-own-name");
    for (int i = 0; i < 20; i++) {
        zmq_send(s, "x", 2, ZMQ_DONTWAIT);
        turn(&a, 10);
    }
    ck_assert_uint_eq(a.n, before);
    zmq_close(s);
    zmq_ctx_term(ctx);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* A peer that reads nothing costs a bounded amount, delays nobody, and loses no frame: also not
 * those of a step that says several things to it, as a comparison of logs does; such a link was
 * dropped at one end and lived on for 45 s at the other. */
START_TEST(back_pressure_is_told_and_bounded) {
    enum { SIZE = 16384 };
    static uint8_t frame[SIZE];
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    void *ctx = zmq_ctx_new(), *s = hostile(ctx, &b, &a, NULL);
    zmq_send(s, "hi", 3, 0);
    uint64_t in = EXPECT(&a, PD_NET_UP, &a)->session;
    uint32_t sent = 0, kept = 0;
    pd_err r = PD_OK;
    for (int quiet = 0; quiet < 20;) { /* until it stays full */
        memcpy(frame, &sent, 4);
        r = pd_net_send(a.net, in, frame, SIZE);
        ck_assert(r == PD_OK || r == PD_EAGAIN || r == PD_EFULL);
        kept += r == PD_EAGAIN;
        sent += r != PD_EFULL;
        quiet = r == PD_EFULL ? quiet + 1 : 0;
        turn(&a, 10);
    }
    printf("a peer that reads nothing takes %u KB\n", sent * (SIZE / 1024));
    ck_assert_uint_lt(sent, 40);
    ck_assert_uint_ge(kept, 4); /* what a step says */
    uint32_t got = 0, v = 0;
    zmq_setsockopt(s, ZMQ_RCVTIMEO, &(int){20}, sizeof(int));
    for (uint64_t until = pd_clock_ms() + WAIT_MS; got < sent && pd_clock_ms() < until; turn(&a, 0))
        if (zmq_recv(s, frame, SIZE, 0) == SIZE) {
            memcpy(&v, frame, 4);
            ck_assert_uint_eq(v, got);
            got++;
        }
    ck_assert_uint_eq(got, sent);
    ck_assert(EXPECT(&a, PD_NET_FLOWING, &a) != NULL);
    ck_assert_int_eq(pd_net_send(a.net, in, "on", 3), PD_OK);
    zmq_close(s);
    zmq_ctx_term(ctx);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

static const char *self; /* this program; /proc/self/exe would name valgrind */

static pid_t spawn_echo(uint16_t port, uint8_t seed) {
    char p[16], s[16];
    pid_t pid;
    snprintf(p, sizeof p, "%u", port);
    snprintf(s, sizeof s, "%u", seed);
    char *argv[] = {"test_zmq", "--echo", p, s, NULL};
    ck_assert_int_eq(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
    return pid;
}

/* kill -9 of a peer is noticed at once, and its next life is a new session. */
START_TEST(a_killed_peer_is_told_and_can_come_back) {
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    uint64_t last = 0;
    for (int life = 0; life < 3; life++) {
        pid_t pid = spawn_echo(pd_net_listening(a.net).port, 2);
        pd_net_event *e = EXPECT(&a, PD_NET_UP, &a);
        ck_assert_msg(e != NULL, "the peer did not come");
        ck_assert_uint_gt(e->session, last);
        last = e->session;
        ck_assert(EXPECT(&a, PD_NET_FRAME, &a) != NULL);
        say(&a, last, "echo");
        ck_assert(EXPECT(&a, PD_NET_FRAME, &a) != NULL);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        uint64_t at = pd_clock_ms();
        e = EXPECT(&a, PD_NET_DOWN, &a);
        ck_assert(e && e->session == last && pd_clock_ms() - at < 2000);
    }
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* In a process of its own, so without Check. */
static int echo(uint16_t port, uint8_t seed) {
    uint64_t id;
    pd_addr where = local(port);
    uint8_t mine[32], theirs[32];
    pd_identity own, to;
    pd_net_event e;
    memset(mine, seed, 32);
    memset(theirs, 1, 32);
    if (pd_crypto_init())
        return 1;
    pd_identity_from_seed(mine, &own);
    pd_identity_from_seed(theirs, &to);
    if (pd_net_open(&(pd_net_conf){.identity = &own}, &b.net))
        return 1;
    if (pd_net_dial(b.net, &where, to.pub, NULL, &id))
        return 1;
    for (;;) {
        if (pd_net_wait(b.net, 1000, NULL, 0))
            return 1;
        while (pd_net_next(b.net, &e)) {
            if (e.kind == PD_NET_DOWN || e.kind == PD_NET_DIAL_FAILED)
                return 1;
            const void *p = e.kind == PD_NET_UP ? "hi" : (const void *)e.bytes;
            if (pd_net_send(b.net, id, p, e.kind == PD_NET_UP ? 3 : e.n))
                return 1;
        }
    }
}

static uint32_t count_fds(void) {
    uint32_t n = 0;
    for (int fd = 0; fd < 4096; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Sessions come and go for weeks: no slot, descriptor or number may be lost on the way. */
START_TEST(hundreds_of_sessions_leave_nothing_behind) {
    enum { ROUNDS = 20, AT_ONCE = 15 };
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    uint32_t fds = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t out[AT_ONCE], in[AT_ONCE];
        a.n = a.seen = b.n = b.seen = 0;
        for (int i = 0; i < AT_ONCE; i++)
            out[i] = node_dial(&b, &a);
        for (int i = 0; i < AT_ONCE; i++)
            ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
        for (int i = 0; i < AT_ONCE; i++) {
            say(&b, out[i], "hello");
            pd_net_event *e = EXPECT(&a, PD_NET_UP, &a, &b);
            ck_assert(e != NULL);
            in[i] = e->session;
        }
        for (int i = 0; i < AT_ONCE; i++) {
            if (round % 2)
                pd_net_close(a.net, in[i]);
            else
                pd_net_close(b.net, out[i]);
        }
        for (int i = 0; i < AT_ONCE; i++)
            ck_assert(EXPECT(round % 2 ? &b : &a, PD_NET_DOWN, &a, &b) != NULL);
        pd_net_stats st;
        pd_net_stats_get(a.net, &st);
        ck_assert_uint_eq(st.sessions, 0);
        if (round % 8 == 0)
            NEVER(&a, PD_NET_UP, &a, &b); /* no ghost of a session that was closed */
        if (round == 1)
            fds = count_fds();
    }
    /* libzmq's own thread closes the last ones when it comes to it */
    for (int i = 0; i < 1000 && count_fds() > fds + 4; i++)
        pd_sleep_ms(10);
    ck_assert_uint_le(count_fds(), fds + 4);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

START_TEST(too_many_handshakes_are_told_to_come_back) {
    node_open_conf(&a, 1, (pd_net_conf){.listen = local(0), .handshakes_per_s = 1});
    node_open(&b, 2, false);
    node_allow(&a, &b);
    int up = 0, later = 0;
    for (int i = 0; i < 6; i++)
        node_dial(&b, &a);
    for (uint64_t until = pd_clock_ms() + WAIT_MS; up + later < 6 && pd_clock_ms() < until;) {
        turn(&a, 1);
        turn(&b, 1);
        for (; b.seen < b.n; b.seen++) {
            up += b.log[b.seen].kind == PD_NET_UP;
            later += b.log[b.seen].kind == PD_NET_DIAL_FAILED;
            if (b.log[b.seen].kind == PD_NET_DIAL_FAILED)
                printf("told: %s\n", b.log[b.seen].text);
        }
    }
    ck_assert_int_ge(up, 2);
    ck_assert_int_ge(later, 2);
    ck_assert_int_eq(up + later, 6);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

START_TEST(a_busy_or_foreign_address_is_said) {
    pd_net *other = NULL;
    node_open(&a, 1, true);
    pd_net_conf conf = {.identity = &a.id, .listen = pd_net_listening(a.net)};
    ck_assert_int_eq(pd_net_open(&conf, &other), PD_EBUSY);
    ck_assert(strstr(pd_fail_text(), "is in use; choose another with --listen"));
    conf.listen = (pd_addr){.family = 4, .ip = {192, 0, 2, 1}, .port = 7433};
    ck_assert_int_eq(pd_net_open(&conf, &other), PD_EUSAGE);
    ck_assert(other == NULL);
    pd_net_free(a.net);
}
END_TEST

/* When descriptors run short the door shuts for a while instead of spinning, and opens again. */
START_TEST(short_of_descriptors_the_door_shuts_and_reopens) {
    struct rlimit old, low;
    const char *fork_mode = getenv("CK_FORK");
    if (fork_mode && strcmp(fork_mode, "no") == 0)
        return; /* the limit would stay */
    getrlimit(RLIMIT_NOFILE, &old);
    low = (struct rlimit){80, 80};
    if (setrlimit(RLIMIT_NOFILE, &low) != 0) { /* valgrind keeps some high ones to itself */
        printf("skipped: descriptors cannot be limited here (%s)\n", strerror(errno));
        return;
    }
    node_open(&a, 1, true);
    uint16_t port = pd_net_listening(a.net).port;
    int fds[60], n = 0;
    pd_net_stats st = {.listening = true};
    pd_sleep_ms(1100);
    for (uint64_t until = pd_clock_ms() + 3000; st.listening && pd_clock_ms() < until;) {
        if (n < 28)
            fds[n++] = raw_connect(port);
        turn(&a, 5);
        pd_net_stats_get(a.net, &st);
    }
    ck_assert(!st.listening);
    while (n)
        close(fds[--n]);
    for (uint64_t until = pd_clock_ms() + 9000; !st.listening && pd_clock_ms() < until;) {
        turn(&a, 100);
        pd_net_stats_get(a.net, &st);
    }
    ck_assert(st.listening);
    close(raw_connect(port));
    pd_net_free(a.net);
}
END_TEST

/* Two nodes in two threads of one process, each net in its own: what the daemons of a test do.  A
 * frame that libzmq did not take at once leaves in a later turn, so both turn until both have heard
 * enough.
 */
typedef struct talker {
    node *x;
    int left;
    bool lost;
    atomic_int *talking; /* of the two */
} talker;

static void *talk(void *arg) {
    talker *t = arg;
    pd_net_event e;
    while (atomic_load(t->talking) > 0 && !t->lost) {
        t->lost = pd_net_wait(t->x->net, 10, NULL, 0) != PD_OK;
        while (!t->lost && pd_net_next(t->x->net, &e)) {
            t->lost = e.kind == PD_NET_DOWN;
            if (e.kind != PD_NET_FRAME || t->left == 0)
                continue;
            pd_err r = pd_net_send(t->x->net, e.session, e.bytes, e.n);
            t->lost = r != PD_OK && r != PD_EAGAIN;
            if (--t->left == 0)
                atomic_fetch_sub(t->talking, 1);
        }
    }
    if (t->lost)
        atomic_store(t->talking, 0);
    return NULL;
}

START_TEST(two_threads_two_nets) {
    node_open(&a, 1, true);
    node_open(&b, 2, false);
    node_allow(&a, &b);
    uint64_t id = node_dial(&b, &a);
    ck_assert(EXPECT(&b, PD_NET_UP, &a, &b) != NULL);
    say(&b, id, "ping");
    atomic_int talking = 2;
    talker ta = {.x = &a, .left = 500, .talking = &talking};
    talker tb = {.x = &b, .left = 500, .talking = &talking};
    pthread_t pa, pb;
    pthread_create(&pa, NULL, talk, &ta);
    pthread_create(&pb, NULL, talk, &tb);
    pthread_join(pa, NULL);
    pthread_join(pb, NULL);
    ck_assert(!ta.lost && !tb.lost);
    ck_assert_int_eq(ta.left, 0);
    ck_assert_int_eq(tb.left, 0);
    pd_net_free(a.net);
    pd_net_free(b.net);
}
END_TEST

/* The caller's descriptors wake the wait: how other threads and the control socket get its ear. */
START_TEST(the_callers_descriptors_wake_the_wait) {
    int p[2];
    ck_assert_int_eq(pipe(p), 0);
    node_open(&a, 1, false);
    struct pollfd fd = {.fd = p[0], .events = POLLIN};
    ck_assert_int_eq(pd_net_wait(a.net, 0, &fd, 1), PD_OK);
    ck_assert_int_eq(fd.revents, 0);
    ck_assert_int_eq(write(p[1], "x", 1), 1);
    uint64_t at = pd_clock_ms();
    ck_assert_int_eq(pd_net_wait(a.net, 900, &fd, 1), PD_OK);
    ck_assert(fd.revents & POLLIN);
    ck_assert_uint_lt(pd_clock_ms() - at, 500);
    close(p[0]);
    close(p[1]);
    pd_net_free(a.net);
}
END_TEST

int main(int argc, char **argv) {
    self = argv[0];
    if (argc == 4 && strcmp(argv[1], "--echo") == 0)
        return echo((uint16_t)atoi(argv[2]), (uint8_t)atoi(argv[3]));
    Suite *s = suite_create("zmq");
    TCase *tc = tcase_create("zmq");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, members_talk_both_ways);
    tcase_add_test(tc, what_was_sent_before_a_close_arrives);
    tcase_add_test(tc, strangers_stay_outside);
    tcase_add_test(tc, guests_come_in_by_their_ticket);
    tcase_add_test(tc, a_denied_member_is_out_at_once);
    tcase_add_test(tc, garbage_does_no_harm);
    tcase_add_test(tc, hostile_members_lose_their_session);
    tcase_add_test(tc, back_pressure_is_told_and_bounded);
    tcase_add_test(tc, a_killed_peer_is_told_and_can_come_back);
    tcase_add_test(tc, hundreds_of_sessions_leave_nothing_behind);
    tcase_add_test(tc, too_many_handshakes_are_told_to_come_back);
    tcase_add_test(tc, a_busy_or_foreign_address_is_said);
    tcase_add_test(tc, short_of_descriptors_the_door_shuts_and_reopens);
    tcase_add_test(tc, two_threads_two_nets);
    tcase_add_test(tc, the_callers_descriptors_wake_the_wait);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
