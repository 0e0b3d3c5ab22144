/* emulate.c - the network between namespaces, in user space: a TUN device in each, wire.h between.
 *
 *   emulate [--seed S] NAMESPACE...        names of /run/netns; node i is the i-th, 10.77.0.(i+1)
 *
 * Prints `ready`, then obeys a line at a time from standard input, answering each with `ok`,
 * `error: ...` or, for `count`, one JSON object; ends at end of file, and the devices with it:
 *
 *   set WHO KEY VALUE ...    rate BIT/S   queue BYTES   delay MS   jitter MS
 *                            loss %   double %   overtake %   flip %          (loss 2.5 is fine)
 *   block WHO WHO            what the first send to the second is dropped
 *   heal                     nothing is blocked any more
 *   count                    what became of each node's packets
 *
 * WHO is `all` or numbers and ranges: 0,2-4.  Packets for other addresses, and all but IPv4, are
 * dropped.  A device has no offload: what the kernel hands over are whole packets of at most 1,500
 * bytes, as on a wire, with their checksums made.
 */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, READS = 64, LINE_MAX_BYTES = 512 };
#define NET 0x0a4d0000u /* 10.77.0.0/16 */

typedef struct emulator {
    wire *wire;
    uint32_t n;
    int tun[WIRE_NODES_MAX];
    char line[LINE_MAX_BYTES]; /* of standard input, as far as it has come */
    size_t n_line;
} emulator;

static uint64_t clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- devices ---- */

static bool set_address(int s, struct ifreq *r, unsigned long request, uint32_t host) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(host)};
    memcpy(&r->ifr_addr, &a, sizeof a);
    return ioctl(s, request, r) == 0;
}

static bool set_up(int s, struct ifreq *r) {
    if (ioctl(s, SIOCGIFFLAGS, r) != 0)
        return false;
    r->ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(s, SIOCSIFFLAGS, r) == 0;
}

/* In the namespace that the process is in: loopback up, and a device with the node's address. */
static int open_tun(uint32_t node) {
    struct ifreq r = {.ifr_name = "lo"};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    bool ok = s >= 0 && tun >= 0 && set_up(s, &r);
    r = (struct ifreq){.ifr_name = "wire", .ifr_flags = IFF_TUN | IFF_NO_PI};
    ok = ok && ioctl(tun, TUNSETIFF, &r) == 0;
    ok = ok && set_address(s, &r, SIOCSIFADDR, NET + node + 1);
    ok = ok && set_address(s, &r, SIOCSIFNETMASK, 0xffff0000u);
    r.ifr_mtu = MTU;
    ok = ok && ioctl(s, SIOCSIFMTU, &r) == 0 && set_up(s, &r);
    if (s >= 0)
        close(s);
    if (ok || tun < 0)
        return tun;
    int cause = errno;
    close(tun);
    errno = cause;
    return -1;
}

static bool open_node(emulator *m, uint32_t node, const char *name, int home) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    bool in = ns >= 0 && setns(ns, CLONE_NEWNET) == 0;
    m->tun[node] = in ? open_tun(node) : -1;
    if (m->tun[node] < 0)
        fprintf(stderr, "emulate: no device in namespace %s: %s\n", name, strerror(errno));
    if (ns >= 0)
        close(ns);
    return m->tun[node] >= 0 && setns(home, CLONE_NEWNET) == 0;
}

/* ---- packets ---- */

static void read_packets(emulator *m, uint32_t from) {
    uint8_t p[WIRE_PACKET_MAX];
    for (int i = 0; i < READS; i++) {
        ssize_t n = read(m->tun[from], p, sizeof p);
        if (n <= 0)
            return;
        if (n < 20 || p[0] >> 4 != 4)
            continue;
        uint32_t to =
            ((uint32_t)p[16] << 24 | (uint32_t)p[17] << 16 | (uint32_t)p[18] << 8 | p[19]);
        if (to - NET - 1 < m->n)
            wire_put(m->wire, clock_us(), from, to - NET - 1, p, (size_t)n);
    }
}

static void write_packets(emulator *m) {
    uint8_t p[WIRE_PACKET_MAX];
    uint32_t to;
    size_t n;
    while (wire_take(m->wire, clock_us(), &to, p, &n)) {
        ssize_t k = write(m->tun[to], p, n);
        (void)k; /* the receiving kernel may drop it, as any */
    }
}

/* ---- commands ---- */

/* Marks the nodes that `text` names; false: it names none. */
static bool parse_who(const emulator *m, const char *text, bool who[WIRE_NODES_MAX]) {
    memset(who, 0, WIRE_NODES_MAX);
    if (strcmp(text, "all") == 0) {
        memset(who, 1, m->n);
        return true;
    }
    for (const char *p = text;; p++) {
        char *end;
        unsigned long first = strtoul(p, &end, 10), last = first;
        if (end == p)
            return false;
        p = end;
        if (*p == '-') {
            last = strtoul(p + 1, &end, 10);
            if (end == p + 1)
                return false;
            p = end;
        }
        for (; first <= last && last < m->n; first++)
            who[first] = true;
        if (last >= m->n || (*p && *p != ','))
            return false;
        if (!*p)
            return true;
    }
}

static bool set_key(wire_line *l, const char *key, double v) {
    const struct {
        const char *key;
        uint32_t *at;
        double unit;
    } keys[] = {{"queue", &l->queue, 1},           {"delay", &l->delay_us, 1000},
                {"jitter", &l->jitter_us, 1000},   {"loss", &l->loss_ppm, 10000},
                {"double", &l->double_ppm, 10000}, {"overtake", &l->overtake_ppm, 10000},
                {"flip", &l->flip_ppm, 10000}};
    if (!(v >= 0 && v < 1e12))
        return false;
    if (strcmp(key, "rate") == 0) {
        l->rate = (uint64_t)v;
        return true;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i].key) == 0 && v * keys[i].unit < 4e9) {
            *keys[i].at = (uint32_t)(v * keys[i].unit + 0.5);
            return true;
        }
    return false;
}

static const char *do_set(emulator *m, char **next) {
    bool who[WIRE_NODES_MAX];
    const char *text = strtok_r(NULL, " ", next), *key, *value;
    if (!text || !parse_who(m, text, who))
        return "set whom?";
    while ((key = strtok_r(NULL, " ", next))) {
        char *end = NULL;
        value = strtok_r(NULL, " ", next);
        double v = value ? strtod(value, &end) : -1;
        for (uint32_t i = 0; i < m->n; i++) {
            wire_line line = wire_get(m->wire, i);
            if (!value || *end || !set_key(&line, key, v))
                return "no such key, or not a value of it";
            if (who[i])
                wire_set(m->wire, i, &line);
        }
    }
    return NULL;
}

static const char *do_block(emulator *m, char **next) {
    bool from[WIRE_NODES_MAX], to[WIRE_NODES_MAX];
    const char *a = strtok_r(NULL, " ", next), *b = strtok_r(NULL, " ", next);
    if (!a || !b || !parse_who(m, a, from) || !parse_who(m, b, to))
        return "block whom from whom?";
    for (uint32_t i = 0; i < m->n; i++)
        for (uint32_t j = 0; j < m->n; j++)
            if (from[i] && to[j])
                wire_block(m->wire, i, j, true);
    return NULL;
}

static void do_heal(emulator *m) {
    for (uint32_t i = 0; i < m->n; i++)
        for (uint32_t j = 0; j < m->n; j++)
            wire_block(m->wire, i, j, false);
}

static void print_counts(const emulator *m) {
    printf("{\"nodes\": [");
    for (uint32_t i = 0; i < m->n; i++) {
        wire_counts c;
        wire_counts_get(m->wire, i, &c);
        printf("%s{\"sent\": %" PRIu64 ", \"sent_bytes\": %" PRIu64 ", \"delivered\": %" PRIu64
               ", \"delivered_bytes\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"blocked\": %" PRIu64
               ", \"overflowed\": %" PRIu64 ", \"doubled\": %" PRIu64 ", \"overtook\": %" PRIu64
               ", \"flipped\": %" PRIu64 "}",
               i ? ", " : "", c.sent, c.sent_bytes, c.delivered, c.delivered_bytes, c.lost,
               c.blocked, c.overflowed, c.doubled, c.overtook, c.flipped);
    }
    printf("]}\n");
}

static void obey(emulator *m, char *line) {
    char *next = NULL;
    const char *command = strtok_r(line, " ", &next), *wrong = "no such command";
    if (command && strcmp(command, "count") == 0) {
        print_counts(m);
        fflush(stdout);
        return;
    }
    if (command && strcmp(command, "set") == 0)
        wrong = do_set(m, &next);
    else if (command && strcmp(command, "block") == 0)
        wrong = do_block(m, &next);
    else if (command && strcmp(command, "heal") == 0) {
        do_heal(m);
        wrong = NULL;
    }
    if (wrong)
        printf("error: %s\n", wrong);
    else
        puts("ok");
    fflush(stdout);
}

/* Read what has come of standard input and obey whole lines; false at its end. */
static bool read_commands(emulator *m) {
    ssize_t n = read(STDIN_FILENO, m->line + m->n_line, sizeof m->line - 1 - m->n_line);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    m->n_line += (size_t)n;
    for (;;) {
        char *end = memchr(m->line, '\n', m->n_line);
        if (!end)
            break;
        *end = 0;
        obey(m, m->line);
        m->n_line -= (size_t)(end + 1 - m->line);
        memmove(m->line, end + 1, m->n_line);
    }
    return m->n_line < sizeof m->line - 1;
}

/* ---- the loop ---- */

static bool turn(emulator *m) {
    struct pollfd fds[WIRE_NODES_MAX + 1] = {{.fd = STDIN_FILENO, .events = POLLIN}};
    for (uint32_t i = 0; i < m->n; i++)
        fds[i + 1] = (struct pollfd){.fd = m->tun[i], .events = POLLIN};
    uint64_t wake = wire_wake(m->wire), now = clock_us();
    uint64_t wait = wake <= now ? 0 : wake - now;
    struct timespec t = {(time_t)(wait / 1000000), (long)(wait % 1000000) * 1000};
    if (ppoll(fds, m->n + 1, wake == UINT64_MAX ? NULL : &t, NULL) < 0 && errno != EINTR)
        return false;
    for (uint32_t i = 0; i < m->n; i++)
        if (fds[i + 1].revents)
            read_packets(m, i);
    write_packets(m);
    return !fds[0].revents || read_commands(m);
}

int main(int argc, char **argv) {
    emulator m = {0};
    uint64_t seed = 1;
    int first = 1, home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (argc > 2 && strcmp(argv[1], "--seed") == 0) {
        seed = strtoull(argv[2], NULL, 10);
        first = 3;
    }
    if (first >= argc || argc - first > WIRE_NODES_MAX || argv[first][0] == '-') {
        fprintf(stderr, "usage: emulate [--seed S] NAMESPACE...   (1 to %d)\n", WIRE_NODES_MAX);
        return 2;
    }
    m.n = (uint32_t)(argc - first);
    m.wire = wire_open(m.n, seed);
    if (!m.wire || home < 0) {
        fprintf(stderr, "emulate: cannot start: %s\n", strerror(errno));
        return 1;
    }
    for (uint32_t i = 0; i < m.n; i++)
        if (!open_node(&m, i, argv[first + (int)i], home))
            return 1;
    puts("ready");
    fflush(stdout);
    while (turn(&m))
        ;
    wire_free(m.wire);
    return 0;
}
