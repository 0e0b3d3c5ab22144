/* wire.h - a model of the lines between some nodes: packets in, packets out, later, or not at all.
 *
 *   from's uplink (rate, queue) ─> path (loss, delay, jitter, doubles, flips) ─> to's downlink
 *
 * Pure: time and packets are arguments, chance comes from a seed, so the same calls give the same
 * packets.  emulate.c puts it between network namespaces; test_wire.c measures it without any.
 * It exists because the kernel's own emulator (tc netem) is missing on many machines, and because
 * that one cannot flip a byte so that TCP still takes the packet.
 *
 * A line is as thin in both directions.  Everything else happens to what a node sends: loss of 5 %
 * on two lines loses 5 % each way between them, a delay of 150 ms makes a round trip of 300.
 * Packets of one pair of nodes keep their order, as on one path, but for those drawn to overtake.
 */
#ifndef CHAOS_WIRE_H
#define CHAOS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_NODES_MAX = 128, WIRE_PACKET_MAX = 1600 };

typedef struct wire wire;

typedef struct wire_line {
    uint64_t rate;      /* bits a second, each way; 0: no limit */
    uint32_t queue;     /* bytes that wait for that rate, each way; more are dropped */
    uint32_t delay_us;  /* one way */
    uint32_t jitter_us; /* uniform, up to so much more or less */
    uint32_t loss_ppm, double_ppm, overtake_ppm, flip_ppm; /* chances in a million */
} wire_line;

/* What became of a node's packets.  A packet sent is delivered, or counted by what it ended in. */
typedef struct wire_counts {
    uint64_t sent, sent_bytes, delivered, delivered_bytes; /* by it; to it */
    uint64_t lost, blocked, overflowed; /* sent by it; overflowed: on its own line, both ways */
    uint64_t doubled, overtook, flipped;
} wire_counts;

/* Lines of n nodes, all ideal but for a queue of 64 KB.  NULL: no memory. */
wire *wire_open(uint32_t n, uint64_t seed);
void wire_free(wire *w);

/* What is under way keeps the times it was given. */
void wire_set(wire *w, uint32_t node, const wire_line *line);
wire_line wire_get(const wire *w, uint32_t node);
/* Drop whatever `from` sends to `to` from now on, or no longer. */
void wire_block(wire *w, uint32_t from, uint32_t to, bool block);
void wire_counts_get(const wire *w, uint32_t node, wire_counts *out);

/* Send a packet of n <= WIRE_PACKET_MAX bytes, copied; now_us never falls. */
void wire_put(wire *w, uint64_t now_us, uint32_t from, uint32_t to, const void *packet, size_t n);
/* Take the next packet that has arrived by now_us; false: none.  Returns its bytes, to whom. */
bool wire_take(wire *w, uint64_t now_us, uint32_t *to, uint8_t out[WIRE_PACKET_MAX], size_t *n);
/* When to call wire_take again; UINT64_MAX: nothing is under way. */
uint64_t wire_wake(const wire *w);

/* Change one byte of an IPv4 packet's TCP or UDP payload and its checksum with it: where in the
 * payload and by which bits comes from `chance`.  False: it carries none, nothing was changed.
 */
bool wire_flip(uint8_t *packet, size_t n, uint64_t chance);

#endif
