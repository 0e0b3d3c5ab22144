/* quant_blocks.h - one reader a type, from whole blocks to float32; private to src/lm.
 *
 * quant.c keeps the table of types and the plain ones; quant_k.c has those of 256 elements under
 * scales of their own and those of a fixed table of levels; quant_grid.c those whose elements are
 * vectors of a grid.  quant.h says how each type is laid out.
 */
#ifndef PD_QUANT_BLOCKS_H
#define PD_QUANT_BLOCKS_H

#include "peerd/quant.h"

typedef void pd_block_reader(const uint8_t *src, size_t n_blocks, float *out);

pd_block_reader pd_read_q2_k, pd_read_q3_k, pd_read_q4_k, pd_read_q5_k, pd_read_q6_k;
pd_block_reader pd_read_tq1_0, pd_read_tq2_0, pd_read_iq4_nl, pd_read_iq4_xs, pd_read_mxfp4;
pd_block_reader pd_read_iq2_xxs, pd_read_iq2_xs, pd_read_iq2_s, pd_read_iq3_xxs, pd_read_iq3_s;
pd_block_reader pd_read_iq1_s, pd_read_iq1_m;

static inline uint16_t pd_block_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline float pd_block_half(const uint8_t *p) {
    return pd_half_to_float(pd_block_u16(p));
}

#endif
