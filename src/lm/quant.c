/* quant.c - blocks of ggml's types to float32; see quant.h.
 *
 * Each reader is the definition of its type written out: a half-precision scale d (and minimum m),
 * small integers q, and d * q or d * q + m in float32 without contraction, in ggml's order of
 * operations, so that bits agree. The layouts drawn beside the readers are those of ggml's
 * ggml-common.h; the sizes of types that are only named here are needed to check where a file's
 * tensors lie.
 */
#include "peerd/quant.h"
#include "peerd/gguf.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

typedef void block_reader(const uint8_t *src, size_t n_blocks, float *out);

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

static uint16_t load16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load32(const uint8_t *p) {
    return (uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16;
}

static float half_at(const uint8_t *p) {
    return pd_half_to_float(load16(p));
}

static void read_f32(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = load32(src + 4 * i);
        memcpy(out + i, &bits, 4);
    }
}

static void read_f16(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = half_at(src + 2 * i);
}

static void read_bf16(const uint8_t *src, size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)load16(src + 2 * i) << 16;
        memcpy(out + i, &bits, 4);
    }
}

/* d:f16 | qs[16]: element j in the low nibble of byte j, element j + 16 in its high nibble.  y = d
 * (q - 8) */
static void read_q4_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 18, out += 32) {
        float d = half_at(src);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)((src[2 + j] & 15) - 8) * d;
            out[j + 16] = (float)((src[2 + j] >> 4) - 8) * d;
        }
    }
}

/* d:f16 | m:f16 | qs[16].  y = d q + m */
static void read_q4_1(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 20, out += 32) {
        float d = half_at(src), m = half_at(src + 2);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)(src[4 + j] & 15) * d + m;
            out[j + 16] = (float)(src[4 + j] >> 4) * d + m;
        }
    }
}

/* d:f16 | qh:u32, bit i is the fifth bit of element i | qs[16].  y = d (q - 16) */
static void read_q5_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 22, out += 32) {
        float d = half_at(src);
        uint32_t high = load32(src + 2);
        for (int j = 0; j < 16; j++) {
            int lo = (src[6 + j] & 15) | (int)(high >> j << 4 & 16);
            int hi = src[6 + j] >> 4 | (int)(high >> (j + 16) << 4 & 16);
            out[j] = (float)(lo - 16) * d;
            out[j + 16] = (float)(hi - 16) * d;
        }
    }
}

/* d:f16 | m:f16 | qh:u32 | qs[16].  y = d q + m */
static void read_q5_1(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 24, out += 32) {
        float d = half_at(src), m = half_at(src + 2);
        uint32_t high = load32(src + 4);
        for (int j = 0; j < 16; j++) {
            int lo = (src[8 + j] & 15) | (int)(high >> j << 4 & 16);
            int hi = src[8 + j] >> 4 | (int)(high >> (j + 16) << 4 & 16);
            out[j] = (float)lo * d + m;
            out[j + 16] = (float)hi * d + m;
        }
    }
}

/* d:f16 | qs[32] signed.  y = d q */
static void read_q8_0(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 34, out += 32) {
        float d = half_at(src);
        for (int j = 0; j < 32; j++)
            out[j] = (float)(int8_t)src[2 + j] * d;
    }
}

/* ql[128], the low four bits | qh[64], the high two | scales[16] signed | d:f16.  y = d scale (q -
 * 32) 256 elements in two halves of 128; in a half, element l + 32 k (l < 32) has low  = nibble k /
 * 2 of ql[l + 32 (k % 2)],  high = bits 2k of qh[l],  scale = scales[l / 16 + 2 k]
 */
static void read_q6_k(const uint8_t *src, size_t n_blocks, float *out) {
    for (; n_blocks--; src += 210) {
        float d = half_at(src + 208);
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

static const struct type_def {
    uint32_t type;
    const char *name;
    uint16_t block, bytes;
    block_reader *read; /* NULL: a type of ggml's that we can measure but not read */
} types[] = {
    {PD_GGML_F32, "F32", 1, 4, read_f32},
    {PD_GGML_F16, "F16", 1, 2, read_f16},
    {PD_GGML_Q4_0, "Q4_0", 32, 18, read_q4_0},
    {PD_GGML_Q4_1, "Q4_1", 32, 20, read_q4_1},
    {PD_GGML_Q5_0, "Q5_0", 32, 22, read_q5_0},
    {PD_GGML_Q5_1, "Q5_1", 32, 24, read_q5_1},
    {PD_GGML_Q8_0, "Q8_0", 32, 34, read_q8_0},
    {PD_GGML_Q6_K, "Q6_K", 256, 210, read_q6_k},
    {PD_GGML_BF16, "BF16", 1, 2, read_bf16},
    {10, "Q2_K", 256, 84, NULL},
    {11, "Q3_K", 256, 110, NULL},
    {12, "Q4_K", 256, 144, NULL},
    {13, "Q5_K", 256, 176, NULL},
    {16, "IQ2_XXS", 256, 66, NULL},
    {17, "IQ2_XS", 256, 74, NULL},
    {18, "IQ3_XXS", 256, 98, NULL},
    {19, "IQ1_S", 256, 50, NULL},
    {20, "IQ4_NL", 32, 18, NULL},
    {21, "IQ3_S", 256, 110, NULL},
    {22, "IQ2_S", 256, 82, NULL},
    {23, "IQ4_XS", 256, 136, NULL},
    {24, "I8", 1, 1, NULL},
    {25, "I16", 1, 2, NULL},
    {26, "I32", 1, 4, NULL},
    {27, "I64", 1, 8, NULL},
    {28, "F64", 1, 8, NULL},
    {29, "IQ1_M", 256, 56, NULL},
    {34, "TQ1_0", 256, 54, NULL},
    {35, "TQ2_0", 256, 66, NULL},
    {39, "MXFP4", 32, 17, NULL},
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
        return pd_fail(PD_EUNSUPPORTED,
                       "tensors of %s are not supported (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
                       "Q5_1 and Q6_K are): convert the file with another quantisation",
                       pd_quant_name(type));
    assert(n % d->block == 0);
    d->read(src, n / d->block, out);
    return PD_OK;
}
