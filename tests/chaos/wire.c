/* wire.c - a heap of packets by the time they arrive; see wire.h. */
#include "wire.h"
#include "peerd/rng.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_BYTES = 65536 }; /* a line's, unless it is told: some 40 full packets */

typedef struct packet {
    uint64_t at_us, number; /* number: ties in the order they were made */
    uint32_t to;
    bool landed; /* at the end of the path: only the downlink is left, at_us is its end */
    uint16_t n;
    uint8_t bytes[];
} packet;

typedef struct node {
    wire_line line;
    wire_counts counts;
    uint64_t up_busy_us, down_busy_us; /* when what waits there will have left */
    uint64_t last_us[WIRE_NODES_MAX];  /* arrival of the latest packet to each */
    bool blocked[WIRE_NODES_MAX];
} node;

struct wire {
    uint32_t n;
    pd_rng rng;
    uint64_t number;
    packet **heap;
    size_t n_heap, room;
    node nodes[WIRE_NODES_MAX];
};

/* ---- heap ---- */

static bool sooner(const packet *a, const packet *b) {
    return a->at_us < b->at_us || (a->at_us == b->at_us && a->number < b->number);
}

static void swap(wire *w, size_t i, size_t j) {
    packet *p = w->heap[i];
    w->heap[i] = w->heap[j];
    w->heap[j] = p;
}

static bool push(wire *w, packet *p) {
    if (w->n_heap == w->room) {
        size_t room = w->room ? 2 * w->room : 1024;
        packet **heap = realloc(w->heap, room * sizeof(packet *));
        if (!heap)
            return false;
        w->heap = heap;
        w->room = room;
    }
    size_t i = w->n_heap++;
    w->heap[i] = p;
    for (; i > 0 && sooner(w->heap[i], w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(w, i, (i - 1) / 2);
    return true;
}

static packet *pop(wire *w) {
    packet *first = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < w->n_heap; child++)
            if (sooner(w->heap[child], w->heap[least]))
                least = child;
        if (least == i)
            return first;
        swap(w, i, least);
        i = least;
    }
}

/* ---- open and close, settings ---- */

wire *wire_open(uint32_t n, uint64_t seed) {
    assert(n <= WIRE_NODES_MAX);
    wire *w = calloc(1, sizeof *w);
    if (w) {
        w->n = n;
        w->rng.state = seed;
        for (uint32_t i = 0; i < n; i++)
            w->nodes[i].line.queue = QUEUE_BYTES;
    }
    return w;
}

void wire_free(wire *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->n_heap; i++)
        free(w->heap[i]);
    free(w->heap);
    free(w);
}

void wire_set(wire *w, uint32_t i, const wire_line *line) {
    assert(i < w->n);
    w->nodes[i].line = *line;
}

wire_line wire_get(const wire *w, uint32_t i) {
    assert(i < w->n);
    return w->nodes[i].line;
}

void wire_block(wire *w, uint32_t from, uint32_t to, bool block) {
    assert(from < w->n && to < w->n);
    w->nodes[from].blocked[to] = block;
}

void wire_counts_get(const wire *w, uint32_t i, wire_counts *out) {
    assert(i < w->n);
    *out = w->nodes[i].counts;
}

/* ---- bytes that lie ---- */

static uint16_t load_be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

/* A checksum after a word that it covers has changed: RFC 1624, equation 3. */
static uint16_t checksum_after(uint16_t sum, uint16_t was, uint16_t is) {
    uint32_t x = (uint32_t)(uint16_t)~sum + (uint16_t)~was + is;
    x = (x & 0xffff) + (x >> 16);
    x = (x & 0xffff) + (x >> 16);
    return (uint16_t)~x;
}

bool wire_flip(uint8_t *p, size_t n, uint64_t chance) {
    if (n < 20 || p[0] >> 4 != 4)
        return false;
    size_t head = 4 * (size_t)(p[0] & 15), transport, sum_at;
    bool tcp = p[9] == 6, udp = p[9] == 17, fragment = load_be16(p + 6) & 0x3fff;
    if (!(tcp || udp) || fragment || n < head + (tcp ? 20 : 8))
        return false;
    transport = tcp ? 4 * (size_t)(p[head + 12] >> 4) : 8;
    sum_at = head + (tcp ? 16 : 6);
    if (n <= head + transport)
        return false;
    size_t at = head + transport + (size_t)(chance >> 8) % (n - head - transport);
    size_t word = at - (at - head) % 2; /* where the sum's 16 bits begin; an odd end is padded */
    uint8_t last[2] = {p[word], word + 1 < n ? p[word + 1] : 0};
    uint16_t was = load_be16(last);
    uint8_t bits = chance & 0xff ? (uint8_t)chance : 1;
    p[at] ^= bits;
    last[at - word] ^= bits;
    uint16_t sum = load_be16(p + sum_at);
    if (sum == 0 && udp)
        return true; /* sent without a checksum */
    sum = checksum_after(sum, was, load_be16(last));
    if (sum == 0 && udp)
        sum = 0xffff;
    p[sum_at] = (uint8_t)(sum >> 8);
    p[sum_at + 1] = (uint8_t)sum;
    return true;
}

/* ---- packets ---- */

static bool drawn(wire *w, uint32_t ppm) {
    return ppm && pd_rng_below(&w->rng, 1000000) < ppm;
}

/* Through one direction of a line: when its last bit has left; false: the queue is full. */
static bool queue(node *d, uint64_t *busy_us, uint64_t now_us, size_t n, uint64_t *end_us) {
    uint64_t begin = *busy_us > now_us ? *busy_us : now_us;
    if (!d->line.rate) {
        *end_us = now_us;
        return true;
    }
    uint64_t waiting = (begin - now_us) * d->line.rate / 8000000;
    if (waiting + n > d->line.queue && waiting > 0) {
        d->counts.overflowed++;
        return false;
    }
    *end_us = *busy_us = begin + n * 8000000 / d->line.rate;
    return true;
}

/* When a packet that leaves the uplink at left_us comes to the end of the path. */
static uint64_t arrival(wire *w, node *from, uint32_t to, uint64_t left_us) {
    const wire_line *l = &from->line;
    if (drawn(w, l->overtake_ppm)) {
        from->counts.overtook++;
        return left_us + l->delay_us / 4;
    }
    uint64_t at = left_us + l->delay_us;
    if (l->jitter_us) {
        uint64_t swing = pd_rng_below(&w->rng, 2 * (uint64_t)l->jitter_us + 1);
        at = at + swing > l->jitter_us ? at + swing - l->jitter_us : 0;
        at = at > left_us ? at : left_us;
    }
    at = at > from->last_us[to] ? at : from->last_us[to];
    return from->last_us[to] = at;
}

static void send_copy(wire *w, node *from, uint32_t to, uint64_t left_us, const void *bytes,
                      size_t n) {
    packet *p = malloc(sizeof *p + n);
    if (!p) {
        from->counts.lost++;
        return;
    }
    *p = (packet){.number = w->number++, .to = to, .n = (uint16_t)n};
    memcpy(p->bytes, bytes, n);
    p->at_us = arrival(w, from, to, left_us);
    if (drawn(w, from->line.flip_ppm) && wire_flip(p->bytes, n, pd_rng_next(&w->rng)))
        from->counts.flipped++;
    if (!push(w, p)) {
        from->counts.lost++;
        free(p);
    }
}

void wire_put(wire *w, uint64_t now_us, uint32_t from, uint32_t to, const void *bytes, size_t n) {
    assert(from < w->n && to < w->n && n <= WIRE_PACKET_MAX);
    node *f = &w->nodes[from];
    uint64_t left_us;
    f->counts.sent++;
    f->counts.sent_bytes += n;
    if (!queue(f, &f->up_busy_us, now_us, n, &left_us))
        return;
    if (f->blocked[to]) {
        f->counts.blocked++;
        return;
    }
    if (drawn(w, f->line.loss_ppm)) {
        f->counts.lost++;
        return;
    }
    bool twice = drawn(w, f->line.double_ppm);
    f->counts.doubled += twice;
    send_copy(w, f, to, left_us, bytes, n);
    if (twice)
        send_copy(w, f, to, left_us, bytes, n);
}

/* The packet at the end of the path enters the downlink. */
static void land(wire *w, packet *p) {
    node *d = &w->nodes[p->to];
    if (queue(d, &d->down_busy_us, p->at_us, p->n, &p->at_us)) {
        p->landed = true;
        p->number = w->number++;
        if (push(w, p)) /* room is there: it was popped just now */
            return;
    }
    free(p);
}

bool wire_take(wire *w, uint64_t now_us, uint32_t *to, uint8_t out[WIRE_PACKET_MAX], size_t *n) {
    while (w->n_heap && w->heap[0]->at_us <= now_us) {
        packet *p = pop(w);
        if (!p->landed) {
            land(w, p);
            continue;
        }
        *to = p->to;
        *n = p->n;
        memcpy(out, p->bytes, p->n);
        w->nodes[p->to].counts.delivered++;
        w->nodes[p->to].counts.delivered_bytes += p->n;
        free(p);
        return true;
    }
    return false;
}

uint64_t wire_wake(const wire *w) {
    return w->n_heap ? w->heap[0]->at_us : UINT64_MAX;
}
