/* quant.c - ggml's types: the table of them, and those of one scale a block; see quant.h.
 *
 * Each reader is the definition of its type written out: a half-precision scale d (and minimum m),
 * small integers q, and d * q or d * q + m in float32 without contraction, in ggml's order of
 * operations, so that bits agree.  The sizes of types that are only named here are needed to check
 * where a file's tensors lie.
 */
#include "peerd/quant.h"
#include "peerd/bytes.h"
#include "peerd/gguf.h"
#include "quant_blocks.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Subnormal halves are m * 2^-24, exact in float32; the others only need their exponent rebased. */
float pd_half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 1023u, bits;
    float f;
    if (e == 0) {
        f = (float)m * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (e == 31 ? 255u : e + 112u) << 23 | m << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* x >> n, to the nearest, ties to even. */
static uint32_t shift_rounded(uint32_t x, unsigned n) {
    uint32_t half = 1u << (n - 1), rest = x & ((1u << n) - 1);
    x >>= n;
    return x + (rest > half || (rest == half && (x & 1)));
}

/* Exponent and mantissa are rounded as one number, so that a carry out of the mantissa is the next
 * exponent, and out of the largest one infinity.  Below 2^-14 the mantissa counts units of 2^-24;
 * below 2^-25 there is nothing left of it, and the shift would be too wide.
 */
uint16_t pd_half_from_float(float f) {
    uint32_t sign = bits_of(f) >> 16 & 0x8000u, x = bits_of(f) & 0x7fffffffu, e = x >> 23, half;
    if (x > 0x7f800000u)
        half = 0x7e00u;
    else if (e >= 127 + 16)
        half = 0x7c00u;
    else if (e >= 127 - 14)
        half = shift_rounded(x - (112u << 23), 13);
    else if (e >= 127 - 25)
        half = shift_rounded((x & 0x7fffffu) | 0x800000u, 126 - e);
    else
        half = 0;
    return (uint16_t)(sign | half);
}

uint16_t pd_bf16_from_float(float f) {
    uint32_t x = bits_of(f);
    if ((x & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(x >> 16 | 64);
    return (uint16_t)shift_rounded(x, 16);
}

static void read_f32(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = pd_load32(src + 4 * i);
        memcpy(out + i, &bits, 4);
    }
}

static void read_f16(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = pd_block_half(src + 2 * i);
}

static void read_bf16(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)pd_block_u16(src + 2 * i) << 16;
        memcpy(out + i, &bits, 4);
    }
}

static void read_q4_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 18, out += 32) {
        float d = pd_block_half(src);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)((src[2 + j] & 15) - 8) * d;
            out[j + 16] = (float)((src[2 + j] >> 4) - 8) * d;
        }
    }
}

static void read_q4_1(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 20, out += 32) {
        float d = pd_block_half(src), m = pd_block_half(src + 2);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)(src[4 + j] & 15) * d + m;
            out[j + 16] = (float)(src[4 + j] >> 4) * d + m;
        }
    }
}

static void read_q5_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 22, out += 32) {
        float d = pd_block_half(src);
        uint32_t high = pd_load32(src + 2);
        for (int j = 0; j < 16; j++) {
            int lo = (src[6 + j] & 15) | (int)(high >> j << 4 & 16);
            int hi = src[6 + j] >> 4 | (int)(high >> (j + 16) << 4 & 16);
            out[j] = (float)(lo - 16) * d;
            out[j + 16] = (float)(hi - 16) * d;
        }
    }
}

static void read_q5_1(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 24, out += 32) {
        float d = pd_block_half(src), m = pd_block_half(src + 2);
        uint32_t high = pd_load32(src + 4);
        for (int j = 0; j < 16; j++) {
            int lo = (src[8 + j] & 15) | (int)(high >> j << 4 & 16);
            int hi = src[8 + j] >> 4 | (int)(high >> (j + 16) << 4 & 16);
            out[j] = (float)lo * d + m;
            out[j + 16] = (float)hi * d + m;
        }
    }
}

static void read_q8_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 34, out += 32) {
        float d = pd_block_half(src);
        for (int j = 0; j < 32; j++)
            out[j] = (float)(int8_t)src[2 + j] * d;
    }
}

static const struct type_def {
    uint32_t type;
    const char *name;
    uint16_t block, bytes;
    pd_block_reader *read; /* NULL: a type of ggml's that we can measure but not read */
} types[] = {
    {PD_GGML_F32, "F32", 1, 4, read_f32},
    {PD_GGML_F16, "F16", 1, 2, read_f16},
    {PD_GGML_Q4_0, "Q4_0", 32, 18, read_q4_0},
    {PD_GGML_Q4_1, "Q4_1", 32, 20, read_q4_1},
    {PD_GGML_Q5_0, "Q5_0", 32, 22, read_q5_0},
    {PD_GGML_Q5_1, "Q5_1", 32, 24, read_q5_1},
    {PD_GGML_Q8_0, "Q8_0", 32, 34, read_q8_0},
    {9, "Q8_1", 32, 36, NULL},
    {PD_GGML_Q2_K, "Q2_K", 256, 84, pd_read_q2_k},
    {PD_GGML_Q3_K, "Q3_K", 256, 110, pd_read_q3_k},
    {PD_GGML_Q4_K, "Q4_K", 256, 144, pd_read_q4_k},
    {PD_GGML_Q5_K, "Q5_K", 256, 176, pd_read_q5_k},
    {PD_GGML_Q6_K, "Q6_K", 256, 210, pd_read_q6_k},
    {15, "Q8_K", 256, 292, NULL},
    {PD_GGML_IQ2_XXS, "IQ2_XXS", 256, 66, pd_read_iq2_xxs},
    {PD_GGML_IQ2_XS, "IQ2_XS", 256, 74, pd_read_iq2_xs},
    {PD_GGML_IQ3_XXS, "IQ3_XXS", 256, 98, pd_read_iq3_xxs},
    {PD_GGML_IQ1_S, "IQ1_S", 256, 50, pd_read_iq1_s},
    {PD_GGML_IQ4_NL, "IQ4_NL", 32, 18, pd_read_iq4_nl},
    {PD_GGML_IQ3_S, "IQ3_S", 256, 110, pd_read_iq3_s},
    {PD_GGML_IQ2_S, "IQ2_S", 256, 82, pd_read_iq2_s},
    {PD_GGML_IQ4_XS, "IQ4_XS", 256, 136, pd_read_iq4_xs},
    {24, "I8", 1, 1, NULL},
    {25, "I16", 1, 2, NULL},
    {26, "I32", 1, 4, NULL},
    {27, "I64", 1, 8, NULL},
    {28, "F64", 1, 8, NULL},
    {PD_GGML_IQ1_M, "IQ1_M", 256, 56, pd_read_iq1_m},
    {PD_GGML_BF16, "BF16", 1, 2, read_bf16},
    {PD_GGML_TQ1_0, "TQ1_0", 256, 54, pd_read_tq1_0},
    {PD_GGML_TQ2_0, "TQ2_0", 256, 66, pd_read_tq2_0},
    {PD_GGML_MXFP4, "MXFP4", 32, 17, pd_read_mxfp4},
    {40, "NVFP4", 64, 36, NULL},
    {41, "Q1_0", 128, 18, NULL},
    {42, "Q2_0", 64, 18, NULL},
};

static const struct type_def *find(uint32_t type) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type)
            return &types[i];
    return NULL;
}

size_t pd_quant_block(uint32_t type) {
    const struct type_def *d = find(type);
    return d ? d->block : 0;
}

size_t pd_quant_block_bytes(uint32_t type) {
    const struct type_def *d = find(type);
    return d ? d->bytes : 0;
}

const char *pd_quant_name(uint32_t type) {
    static _Thread_local char unnamed[24];
    const struct type_def *d = find(type);
    if (d)
        return d->name;
    snprintf(unnamed, sizeof unnamed, "type %u", (unsigned)type);
    return unnamed;
}

pd_err pd_quant_read(uint32_t type, const uint8_t *src, size_t n, float *out) {
    const struct type_def *d = find(type);
    if (!d || !d->read)
        return pd_fail(
            PD_EUNSUPPORTED,
            "tensors of %s are not supported (F32, F16, BF16, Q4_0 to Q8_0, the K and IQ "
            "types, TQ1_0, TQ2_0 and MXFP4 are): convert the file with another "
            "quantisation",
            pd_quant_name(type));
    assert(n % d->block == 0);
    d->read(src, n / d->block, out);
    return PD_OK;
}
