/* quant.h - tensor elements as float32, exactly as ggml defines each type.
 *
 * Promises: every value equals ggml's dequantisation bit for bit (products of a half-precision scale and small
 * integers in float32).  Does not quantise.
 */
#ifndef PEERD_QUANT_H
#define PEERD_QUANT_H

#include "peerd/err.h"

#include <stddef.h>
#include <stdint.h>

/* Elements and bytes of one block of a type; both 0 for a type whose size is not known here.  Types that are only
 * measured (Q4_K, IQ4_XS, ...) have a size, so that a file can be checked whole, and are refused by pd_quant_read.
 */
size_t pd_quant_block(uint32_t type);
size_t pd_quant_block_bytes(uint32_t type);
/* "Q4_1", or "type 23" for one without a name here.  Static text or a per-thread buffer. */
const char *pd_quant_name(uint32_t type);

/* n elements (a multiple of the block) at src to out.
 * Errors: PD_EUNSUPPORTED (the text names the type).
 */
PD_CHECKED pd_err pd_quant_read(uint32_t type, const uint8_t *src, size_t n, float *out);

float pd_half_to_float(uint16_t h);

#endif
