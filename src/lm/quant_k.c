/* quant_k.c - ggml's blocks of 256 under scales of their own, and its fixed levels; see quant.h.
 *
 * A block of 256 is cut into runs of 16 or 32 elements.  Each run has a small integer scale, which
 * the block's half-precision d makes a float once; the loop over the run is then one product (and
 * one difference) in float32, in ggml's order, and nothing that keeps it from being vectorised.
 */
#include "peerd/bytes.h"
#include "quant_blocks.h"

#include <string.h>

/* Two bits of each of 32 bytes that stand for 128 elements: element e of the block. */
static int two_bits(const uint8_t *qs, int e) {
    return qs[32 * (e / 128) + e % 32] >> 2 * (e / 32 % 4) & 3;
}

void pd_read_q2_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 84) {
        const uint8_t *scales = src, *qs = src + 16;
        float d = pd_block_half(src + 80), dmin = pd_block_half(src + 82);
        for (int run = 0; run < 16; run++, out += 16) {
            float scale = d * (float)(scales[run] & 15), min = dmin * (float)(scales[run] >> 4);
            for (int l = 0; l < 16; l++)
                out[l] = scale * (float)two_bits(qs, 16 * run + l) - min;
        }
    }
}

/* Scale of a run: four bits in one of eight bytes, two more in one of the last four. */
static int q3_k_scale(const uint8_t *s, int run) {
    return (s[run % 8] >> 4 * (run / 8) & 15) | (s[8 + run % 4] >> 2 * (run / 4) & 3) << 4;
}

void pd_read_q3_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 110) {
        const uint8_t *high = src, *qs = src + 32, *scales = src + 96;
        float d = pd_block_half(src + 108);
        for (int run = 0; run < 16; run++, out += 16) {
            float scale = d * (float)(q3_k_scale(scales, run) - 32);
            for (int l = 0; l < 16; l++) {
                int e = 16 * run + l, bit = high[e % 32] >> e / 32 & 1;
                out[l] = scale * (float)(two_bits(qs, e) - 4 * !bit);
            }
        }
    }
}

/* Scale and minimum of one of eight runs, six bits each in 12 bytes: the first four whole in bytes
 * 0-3 and 4-7, whose two upper bits are those of the last four; their lower bits in bytes 8-11.
 */
static void six_bits(const uint8_t *s, int run, int *scale, int *min) {
    if (run < 4) {
        *scale = s[run] & 63;
        *min = s[run + 4] & 63;
    } else {
        *scale = (s[run + 4] & 15) | s[run - 4] >> 6 << 4;
        *min = s[run + 4] >> 4 | s[run] >> 6 << 4;
    }
}

void pd_read_q4_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 144) {
        float d = pd_block_half(src), dmin = pd_block_half(src + 2);
        for (int run = 0; run < 8; run++, out += 32) {
            const uint8_t *qs = src + 16 + 32 * (run / 2);
            int s, m;
            six_bits(src + 4, run, &s, &m);
            float scale = d * (float)s, min = dmin * (float)m;
            for (int l = 0; l < 32; l++)
                out[l] = scale * (float)(qs[l] >> 4 * (run % 2) & 15) - min;
        }
    }
}

void pd_read_q5_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 176) {
        float d = pd_block_half(src), dmin = pd_block_half(src + 2);
        const uint8_t *high = src + 16;
        for (int run = 0; run < 8; run++, out += 32) {
            const uint8_t *qs = src + 48 + 32 * (run / 2);
            int s, m;
            six_bits(src + 4, run, &s, &m);
            float scale = d * (float)s, min = dmin * (float)m;
            for (int l = 0; l < 32; l++) {
                int q = (qs[l] >> 4 * (run % 2) & 15) | (high[l] >> run & 1) << 4;
                out[l] = scale * (float)q - min;
            }
        }
    }
}

void pd_read_q6_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 210) {
        float d = pd_block_half(src + 208);
        for (int half = 0; half < 2; half++, out += 128) {
            const uint8_t *ql = src + 64 * half, *qh = src + 128 + 32 * half;
            const uint8_t *scales = src + 192 + 8 * half;
            for (int k = 0; k < 4; k++) {
                for (int l = 0; l < 32; l++) {
                    int q = (ql[l + 32 * (k & 1)] >> 4 * (k >> 1) & 15) | (qh[l] >> 2 * k & 3) << 4;
                    float scale = d * (float)(int8_t)scales[l / 16 + 2 * k];
                    out[l + 32 * k] = scale * (float)(q - 32);
                }
            }
        }
    }
}

/* ---- ternary ---- */

/* Digit n of bytes that hold a number below 1 as base-3 digits, the first one most significant:
 * n digits shifted out to the left (modulo 1), the next one is what three times the rest has before
 * the point.
 */
static void trits(const uint8_t *src, int bytes, int digits, float d, float **out) {
    static const uint8_t pow3[] = {1, 3, 9, 27, 81};
    for (int n = 0; n < digits; n++, *out += bytes)
        for (int j = 0; j < bytes; j++)
            (*out)[j] = (float)(((uint8_t)(src[j] * pow3[n]) * 3 >> 8) - 1) * d;
}

void pd_read_tq1_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 54) {
        float d = pd_block_half(src + 52);
        trits(src, 32, 5, d, &out);
        trits(src + 32, 16, 5, d, &out);
        trits(src + 48, 4, 4, d, &out);
    }
}

void pd_read_tq2_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 66, out += 256) {
        float d = pd_block_half(src + 64);
        for (int e = 0; e < 256; e++)
            out[e] = (float)(two_bits(src, e) - 1) * d;
    }
}

/* ---- fixed levels ---- */

/* 16 bytes of nibbles, element j in the low one of byte j, element j + 16 in its high one. */
static void levels(const int8_t level[16], const uint8_t *qs, float d, float *out) {
    for (int j = 0; j < 16; j++) {
        out[j] = (float)level[qs[j] & 15] * d;
        out[j + 16] = (float)level[qs[j] >> 4] * d;
    }
}

/* ggml's kvalues_iq4nl; unevenly spaced, denser near 0. */
static const int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

void pd_read_iq4_nl(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 18, out += 32)
        levels(iq4_levels, src + 2, pd_block_half(src), out);
}

void pd_read_iq4_xs(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 136) {
        float d = pd_block_half(src);
        int high = pd_block_u16(src + 2);
        for (int run = 0; run < 8; run++, out += 32) {
            int scale = (src[4 + run / 2] >> 4 * (run % 2) & 15) | (high >> 2 * run & 3) << 4;
            levels(iq4_levels, src + 8 + 16 * run, d * (float)(scale - 32), out);
        }
    }
}

/* Twice the values of OCP's E2M1, so that they are integers; the scale is half of E8M0's. */
static const int8_t e2m1_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e - 128); the two smallest are below the normal numbers of float32. */
static float half_of_e8m0(uint8_t e) {
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void pd_read_mxfp4(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 17, out += 32)
        levels(e2m1_levels, src + 1, half_of_e8m0(src[0]), out);
}
