/* replay.h - records folded into the coordinates: the schedule, the exact integer update, the
 * digest.
 *
 *   data > tokens > loss pair > byte > ledger > gossip > REPLAY > weights
 *
 *   a_i += s_i(record) * q(byte, L(step))  mod 2^32                        a in Z^d as int32, unit
 * 2^-F
 *
 * Integer addition commutes, so whoever holds the same set of records holds the same bits, whatever
 * the order, the duplication of messages, the machine or the compiler.  Wrap-around is defined and
 * there is no clamp: an update can be taken back exactly.  Several records are folded in one sweep
 * over a cache block; a record's weight depends on its own step and the manifest alone.
 */
#ifndef PEERD_REPLAY_H
#define PEERD_REPLAY_H

#include "peerd/byte.h"
#include "peerd/digest.h"
#include "peerd/direction.h"
#include "peerd/manifest.h"

/* L(step) = lr(step) * scale in units of 2^-40, in whole numbers:
 *
 *   constant  L0
 *   linear    max(Lmin, L0 * (N - step) div N)                                          step < N,
 * else Lmin cosine    max(Lmin, L0 * t div 2^62) step < N, else Lmin x = 2^40 * step div N,  k = x
 * div 2^32 (0..255),  f = x mod 2^32 t = 2^32 * T[k] - f * (T[k] - T[k+1]),  T[k] = round(2^30 * (1
 * + cos(pi k / 256)) / 2)
 */
typedef struct pd_schedule {
    pd_schedule_kind kind;
    uint64_t l0, lmin; /* units of 2^-40, lmin <= l0 <= PD_STEP_MAX */
    uint64_t n;        /* > 0, except for constant */
} pd_schedule;

/* l0 = lr * scale, at least 1, lmin = lr_min * scale, both rounded to the unit (half up). */
void pd_schedule_of(const pd_manifest *m, pd_schedule *out);
uint64_t pd_schedule_at(const pd_schedule *s, uint64_t step);

enum { PD_REPLAY_FUSED = 16 }; /* records in one sweep */

/* a_i += sum over k of s_i(seed k) * q_k.
 *
 *   a      inout  (d)
 *   seeds  in     (n, 32) of pd_direction_seed
 *   q      in     (n) of pd_byte_coefficient; records of q = 0 cost nothing
 */
void pd_replay_apply(int32_t *a, size_t d, const uint8_t (*seeds)[32], const int64_t *q, size_t n);
/* The exact inverse. */
void pd_replay_undo(int32_t *a, size_t d, const uint8_t (*seeds)[32], const int64_t *q, size_t n);

/* What replay needs to know of a run. */
typedef struct pd_replay {
    uint8_t run[32];
    pd_schedule schedule;
    unsigned unit_bits; /* F */
} pd_replay;

void pd_replay_of(const pd_manifest *m, pd_replay *out);

/* Fold the records from, from+1, ... of one author, whose bytes are given. */
void pd_replay_fold(const pd_replay *r, int32_t *a, size_t d, const pd_author *author,
                    uint64_t from, const uint8_t *bytes, size_t n);
/* The exact inverse: take those records back. */
void pd_replay_unfold(const pd_replay *r, int32_t *a, size_t d, const pd_author *author,
                      uint64_t from, const uint8_t *bytes, size_t n);

#endif
