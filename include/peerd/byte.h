/* byte.h - a projected gradient as one byte, and the integer step that byte stands for.
 *
 *   data > tokens > loss pair > BYTE > ledger > gossip > REPLAY > weights
 *
 *   byte = sign bit 0x80 | index c        c = 0: zero, else |g| = scale * v(c),  v(c) = 2^((c-1)/6
 * - 10),  c = 1..127 v(c) * 2^40 = M[(c-1) mod 6] << ((c-1) div 6),  M[k] = round(2^(30 + k/6)) a
 * whole number q(byte) = -sign * round(v(c) * 2^40 * L * 2^(F-80)),  half away from zero
 *
 * Six steps an octave from 2^-10 to 2^11 times the scale: relative RMS error 3.3 %.  Decoding is a
 * six-entry table and a shift, no libm, so that every machine gets the same integer.  Encoding is
 * the author's own business and uses doubles. The sign bit with c = 0 is reserved: whoever reads
 * bytes from outside refuses it; here it decodes as zero.
 */
#ifndef PEERD_BYTE_H
#define PEERD_BYTE_H

#include <stdbool.h>
#include <stdint.h>

enum { PD_BYTE_RESERVED = 0x80 };

/* L = lr * scale in units of 2^-40 stays below this, so that q fits int64 for every byte and F
 * <= 30. */
#define PD_STEP_MAX (UINT64_C(1) << 60)

static inline bool pd_byte_valid(uint8_t byte) {
    return byte != PD_BYTE_RESERVED;
}

/* |g| / scale in units of 2^-40, 0 .. 2^51. */
uint64_t pd_byte_fixed(uint8_t byte);

/* g / scale, signed. */
double pd_byte_value(uint8_t byte);

/* What a record adds to coordinate i for each +1 of its direction, in units of 2^-F; descent, so a
 * positive gradient gives a negative q.
 *
 *   L  in  lr(step) * scale in units of 2^-40, <= PD_STEP_MAX
 *   F  in  unit bits of the run, 8..30
 */
int64_t pd_byte_coefficient(uint8_t byte, uint64_t L, unsigned F);

/* Byte of a gradient.  With u uniform in [0, 1) the choice between the two neighbours lo <= |g| <
 * hi is random with P(hi) = (|g| - lo) / (hi - lo), so that the decoded value is g on average;
 * below the smallest step the neighbours are zero and that step.  Above the largest the value is
 * clamped.  u < 0 chooses the nearer neighbour.
 *
 *   g      in  finite (a loss that is not must never come here)
 *   scale  in  > 0
 */
uint8_t pd_byte_encode(double g, double scale, double u);

#endif
