/* quant.h - tensor elements as float32, exactly as ggml defines each type.
 *
 * Promises: every value equals ggml's dequantisation bit for bit (products of a half-precision scale and small
 * integers in float32).  Does not quantise; rounds to the 16-bit types.
 *
 * A block in the order of its bytes, little-endian, e its element, y the value.  d, m: float16.  nib(a, j): the low
 * four bits of byte j of a for j < 16, the high four of byte j - 16 above.  two(a, e) = 2 bits of a[32 (e / 128) + e % 32]
 * at 2 (e / 32 % 4).  Numbers of bytes in [].
 *
 *   32 elements
 *     Q4_0    d qs[16]            y = d (nib(qs, e) - 8)           Q4_1   d m qs[16]        y = d nib(qs, e) + m
 *     Q5_0    d qh[4] qs[16]      y = d (q - 16)                   Q5_1   d m qh[4] qs[16]  y = d q + m
 *                                 q = nib(qs, e) + 16 bit e of qh
 *     Q8_0    d qs[32]            y = d qs[e], signed
 *     IQ4_NL  d qs[16]            y = d L[nib(qs, e)], L of 16 levels
 *     MXFP4   x[1] qs[16]         y = 2^(x - 128) M[nib(qs, e)], M twice the values of E2M1
 *   256 elements; s, t the scale and minimum of the run of 16 (r = e / 16) or 32 (r = e / 32) that e is in
 *     Q2_K    scales[16] qs[64] d m     y = d s two(qs, e) - m t    r of 16; s, t: low and high four bits of scales[r]
 *     Q3_K    qh[32] qs[64] sc[12] d    y = d (s - 32) (two(qs, e) - 4 + 4 bit e / 32 of qh[e % 32])    r of 16;
 *                                       s: four bits of sc[r % 8] at 4 (r / 8), over them two of sc[8 + r % 4] at 2 (r / 4)
 *     Q4_K    d m sc[12] qs[128]        y = d s q - m t             r of 32; q: four bits of qs[32 (r / 2) + e % 32] at
 *                                       4 (r % 2); s, t: for r < 4 the low six bits of sc[r] and sc[r + 4], above that the
 *                                       low and the high four of sc[r + 4] under the upper two of sc[r - 4] and sc[r]
 *     Q5_K    d m sc[12] qh[32] qs[128] as Q4_K, q + 16 bit r of qh[e % 32]
 *     Q6_K    ql[128] qh[64] sc[16] d   y = d sc[r] (q - 32)        r of 16, sc signed; in each half of 128 elements, of
 *                                       element l + 32 k (l < 32): q = four bits of ql[l + 32 (k % 2)] at 4 (k / 2), over
 *                                       them two bits of qh[l] at 2 k
 *     IQ4_XS  d h[2] sc[4] qs[128]      y = d (s - 32) L[nib of the run's 16 bytes]    r of 32; s: four bits of sc[r / 2]
 *                                       at 4 (r % 2), over them two of h at 2 r
 *     TQ1_0   qs[48] qh[4] d            y = d (t - 1), t a base-3 digit: 5 a byte, digit n of all of qs[0..31] first, then
 *                                       of qs[32..47], then 4 a byte of qh
 *     TQ2_0   qs[64] d                  y = d (two(qs, e) - 1)
 *   256 elements as vectors of 8 (G[q], k = e / 8) or 4 (k = e / 4) out of a table of the type's own; signs of 7 bits make
 *   8 with an even number of minus signs
 *     IQ2_XXS d (q[4] w[4])[8]          y = d (1/2 + w >> 28) / 4 * +-G[q[k]], signs: 7 bits of w at 7 k
 *     IQ2_XS  d u16[32] sc[8]           y = d (1/2 + s) / 4 * +-G[9 bits of u16[k]], signs: the other 7; s: four bits of
 *                                       sc[k / 4] at 4 (k / 2 % 2)
 *     IQ2_S   d qs[32] sg[32] qh[8] sc[8]          y as IQ2_XS, G[qs[k] + 256 two bits of qh[k / 4]], signs sg[k]
 *     IQ3_XXS d qs[64] w[4][8]          y = d (1/2 + w >> 28) / 2 * +-G[qs[k]], w and its signs as IQ2_XXS
 *     IQ3_S   d qs[64] qh[8] sg[32] sc[4]          y = d (1 + 2 s) * +-G[qs[k] + 256 bit k % 8 of qh[k / 8]], s of 32
 *     IQ1_S   d qs[32] u16[8]           y = d (2 s + 1) (G[q] +- 1/8), minus: bit 15 of u16[k / 4], s: bits 12-14,
 *                                       q = qs[k] + 256 three bits at 3 (k % 4)
 *     IQ1_M   qs[32] qh[16] u16[4]      y as IQ1_S, q's upper three bits and its sign in a nibble of qh, s three bits of
 *                                       u16[k / 8] at 3 (k / 2 % 4), d of the upper four bits of the four u16
 *
 * [1] ggml, src/ggml-common.h (structs block_*) and src/ggml-quants.c (dequantize_row_*), commit d99724f2
 */
#ifndef PEERD_QUANT_H
#define PEERD_QUANT_H

#include "peerd/err.h"

#include <stddef.h>
#include <stdint.h>

/* Elements and bytes of one block of a type; both 0 for a type whose size is not known here.  Types that are only
 * measured (Q8_K, I32, NVFP4, ...) have a size, so that a file can be checked whole, and are refused by pd_quant_read.
 */
size_t pd_quant_block(uint32_t type);
size_t pd_quant_block_bytes(uint32_t type);
/* "Q4_1", or "type 50" for one without a name here.  Static text or a per-thread buffer. */
const char *pd_quant_name(uint32_t type);

/* n elements (a multiple of the block) at src to out.
 * Errors: PD_EUNSUPPORTED (the text names the type).
 * Source: [1]
 */
PD_CHECKED pd_err pd_quant_read(uint32_t type, const uint8_t *src, size_t n, float *out);

float pd_half_to_float(uint16_t h);
/* The nearest float16 or bfloat16, of two equally near ones the even one (IEEE 754, roundTiesToEven).  Beyond the largest
 * finite one: infinity.  NaN stays one.
 */
uint16_t pd_half_from_float(float f);
uint16_t pd_bf16_from_float(float f);

#endif
