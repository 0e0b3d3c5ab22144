/* quant_grid.c - ggml's types whose elements are vectors of a grid; see quant.h.
 *
 * An index into a table of vectors gives the sizes of 8 (IQ3: 4) elements at once, a byte of signs
 * turns them, and a small integer scales 16 or 32 of them.  The tables are kept as the places of an
 * element among the type's values (grids.h): they are part of the format, and a quarter as large
 * so.
 */
#include "peerd/bytes.h"
#include "quant_blocks.h"

#include "grids.h"

static const float iq2_values[4] = {8, 25, 43};
static const float iq3_xxs_values[16] = {4, 12, 20, 28, 36, 44, 52, 62};
static const float iq3_s_values[16] = {1, 3, 5, 7, 9, 11, 13, 15};
static const float iq1_values[4] = {-1, 0, 1};

static const float iq1_shift = 0.125f; /* ggml's IQ1S_DELTA: all values of a group, up or down */

static float sign(unsigned signs, int i) {
    return signs >> i & 1 ? -1.0f : 1.0f;
}

/* Seven bits of signs stand for eight: the number of minus signs is even. */
static unsigned even_signs(unsigned seven) {
    return seven | (unsigned)__builtin_parity(seven) << 7;
}

/* One vector of 8 from a word with 2 bits each; one of 4 from a word with 4 bits each. */
static void put_8(unsigned word, unsigned signs, float scale, float *out) {
    for (int i = 0; i < 8; i++)
        out[i] = scale * iq2_values[word >> 2 * i & 3] * sign(signs, i);
}

static void put_4(const float values[16], unsigned word, unsigned signs, float scale, float *out) {
    for (int i = 0; i < 4; i++)
        out[i] = scale * values[word >> 4 * i & 15] * sign(signs, i);
}

/* ggml's order of operations: d (1/2 + s) is rounded, the quarter and the half are exact. */
static float iq2_scale(float d, unsigned s) {
    return d * (0.5f + (float)s) * 0.25f;
}

void pd_read_iq2_xxs(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 66) {
        float d = pd_block_half(src);
        for (const uint8_t *p = src + 2; p < src + 66; p += 8) {
            uint32_t rest = pd_load32(p + 4);
            float scale = iq2_scale(d, rest >> 28);
            for (int k = 0; k < 4; k++, out += 8)
                put_8(iq2_xxs_grid[p[k]], even_signs(rest >> 7 * k & 127), scale, out);
        }
    }
}

void pd_read_iq2_xs(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 74) {
        float d = pd_block_half(src);
        for (int k = 0; k < 32; k++, out += 8) {
            unsigned q = pd_block_u16(src + 2 + 2 * k);
            float scale = iq2_scale(d, src[66 + k / 4] >> 4 * (k / 2 % 2) & 15);
            put_8(iq2_xs_grid[q & 511], even_signs(q >> 9), scale, out);
        }
    }
}

void pd_read_iq2_s(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 82) {
        const uint8_t *qs = src + 2, *signs = src + 34, *high = src + 66, *scales = src + 74;
        float d = pd_block_half(src);
        for (int k = 0; k < 32; k++, out += 8) {
            unsigned q = qs[k] | (high[k / 4] >> 2 * (k % 4) & 3u) << 8;
            float scale = iq2_scale(d, scales[k / 4] >> 4 * (k / 2 % 2) & 15);
            put_8(iq2_s_grid[q], signs[k], scale, out);
        }
    }
}

void pd_read_iq3_xxs(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 98) {
        float d = pd_block_half(src);
        for (int k = 0; k < 64; k++, out += 4) {
            uint32_t rest = pd_load32(src + 66 + 4 * (k / 8));
            unsigned signs = even_signs(rest >> 7 * (k / 2 % 4) & 127) >> 4 * (k % 2);
            float scale = d * (0.5f + (float)(rest >> 28)) * 0.5f;
            put_4(iq3_xxs_values, iq3_xxs_grid[src[2 + k]], signs, scale, out);
        }
    }
}

void pd_read_iq3_s(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 110) {
        const uint8_t *qs = src + 2, *high = src + 66, *signs = src + 74, *scales = src + 106;
        float d = pd_block_half(src);
        for (int k = 0; k < 64; k++, out += 4) {
            unsigned q = qs[k] | (high[k / 8] >> k % 8 & 1u) << 8;
            float scale = d * (float)(1 + 2 * (scales[k / 16] >> 4 * (k / 8 % 2) & 15));
            put_4(iq3_s_values, iq3_s_grid[q], signs[k / 2] >> 4 * (k % 2), scale, out);
        }
    }
}

static void put_iq1(unsigned q, bool down, float scale, float *out) {
    float shift = down ? -iq1_shift : iq1_shift;
    for (int i = 0; i < 8; i++)
        out[i] = scale * (iq1_values[iq1_grid[q] >> 2 * i & 3] + shift);
}

void pd_read_iq1_s(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 50) {
        float d = pd_block_half(src);
        for (int k = 0; k < 32; k++, out += 8) {
            unsigned high = pd_block_u16(src + 34 + 2 * (k / 4));
            float scale = d * (float)(2 * (high >> 12 & 7) + 1);
            put_iq1(src[2 + k] | (high >> 3 * (k % 4) & 7) << 8, high >> 15, scale, out);
        }
    }
}

/* The block's scale is cut into the four upper bits of the four words of small ones. */
void pd_read_iq1_m(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 56) {
        unsigned words[4], bits = 0;
        for (int i = 0; i < 4; i++) {
            words[i] = pd_block_u16(src + 48 + 2 * i);
            bits |= words[i] >> 12 << 4 * i;
        }
        float d = pd_half_to_float((uint16_t)bits);
        for (int k = 0; k < 32; k++, out += 8) {
            unsigned high = src[32 + k / 2] >> 4 * (k % 2) & 15u;
            float scale = d * (float)(2 * (words[k / 8] >> 3 * (k / 2 % 4) & 7) + 1);
            put_iq1(src[k] | (high & 7) << 8, high >> 3, scale, out);
        }
    }
}
