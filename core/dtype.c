// dtype.c: number formats of tensors, one row each.
//
// The quantizers are the reference ones of GGUF: Q8_0 scales by the largest magnitude / 127, rounding half away from
// zero; Q4_0 scales by the signed value of largest magnitude / -8, so that value is code 0 and exact. The scale is used
// in f32 for rounding and stored in f16. (methods G.2) The other block formats are in blocks.c, blocks_k.c, quantize.c.
#include "core/blocks.h"

#include <math.h>
#include <string.h>
#include <strings.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FF;
    if (exponent == 31) return float_of(sign | 0x7F800000 | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    // Subnormal: fraction * 2^-24, exact in f32.
    float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

uint16_t f16_from_f32(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF)); // NaN
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7C00); // 65536 and above, infinity
    if (magnitude < 0x38800000) {
        // Below 2^-14 the result is subnormal: adding 0.5 lets the addition round to a multiple of 2^-24.
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3F000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    magnitude += 0xFFF + odd; // may carry into the exponent, up to infinity: that is right
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

uint16_t bf16_from_f32(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

static void f32_copy_to(const void *src, float *dst, int64_t n) { memcpy(dst, src, (size_t)n * 4); }
static void f32_copy_from(const float *src, void *dst, int64_t n) { memcpy(dst, src, (size_t)n * 4); }
static void f16_read(const void *src, float *dst, int64_t n) {
    const uint16_t *h = src;
    for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(h[i]);
}
static void f16_write(const float *src, void *dst, int64_t n) {
    uint16_t *h = dst;
    for (int64_t i = 0; i < n; i++) h[i] = f16_from_f32(src[i]);
}
static void bf16_read(const void *src, float *dst, int64_t n) {
    const uint16_t *h = src;
    for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(h[i]);
}
static void bf16_write(const float *src, void *dst, int64_t n) {
    uint16_t *h = dst;
    for (int64_t i = 0; i < n; i++) h[i] = bf16_from_f32(src[i]);
}

static void q8_0_read(const void *src, float *dst, int64_t n) {
    const struct block_q8_0 *b = src;
    for (int64_t i = 0; i < n / QK; i++, dst += QK) {
        float d = f16_to_f32(b[i].d);
        for (int j = 0; j < QK; j++) dst[j] = d * (float)b[i].q[j];
    }
}

// A scale so small that 1/d is infinite is 0 in f16 anyway: all codes are then 0.
static float inverse_of(float d) { return isfinite(1 / d) ? 1 / d : 0; }
// NaN becomes 0, as a conversion of NaN to an integer is undefined.
static int8_t q8_code(float x) { return (int8_t)(x == x ? roundf(x) : 0); }

static void q8_0_write(const float *src, void *dst, int64_t n) {
    struct block_q8_0 *b = dst;
    for (int64_t i = 0; i < n / QK; i++, src += QK) {
        float most = 0;
        for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(src[j]));
        float d = most / 127, inverse = inverse_of(d);
        b[i].d = f16_from_f32(d);
        for (int j = 0; j < QK; j++) b[i].q[j] = q8_code(src[j] * inverse);
    }
}

static void q4_0_read(const void *src, float *dst, int64_t n) {
    const struct block_q4_0 *b = src;
    for (int64_t i = 0; i < n / QK; i++, dst += QK) {
        float d = f16_to_f32(b[i].d);
        for (int j = 0; j < QK / 2; j++) {
            dst[j] = d * (float)((b[i].q[j] & 15) - 8);
            dst[j + QK / 2] = d * (float)((b[i].q[j] >> 4) - 8);
        }
    }
}

static int q4_code(float x) {
    if (!(x > -8.5f)) return x == x ? 0 : 8; // NaN becomes 0, which is code 8
    int code = (int)(x + 8.5f);
    return code > 15 ? 15 : code;
}

static void q4_0_write(const float *src, void *dst, int64_t n) {
    struct block_q4_0 *b = dst;
    for (int64_t i = 0; i < n / QK; i++, src += QK) {
        float most = 0;
        for (int j = 0; j < QK; j++)
            if (fabsf(src[j]) > fabsf(most)) most = src[j];
        float d = most / -8, inverse = inverse_of(d);
        b[i].d = f16_from_f32(d);
        for (int j = 0; j < QK / 2; j++)
            b[i].q[j] = (uint8_t)(q4_code(src[j] * inverse) | q4_code(src[j + QK / 2] * inverse) << 4);
    }
}

static const struct dtype_row rows[] = {
    [DTYPE_F32] = {"F32", 0, 0, 1, 4, f32_copy_to, f32_copy_from},
    [DTYPE_F16] = {"F16", 1, 1, 1, 2, f16_read, f16_write},
    [DTYPE_BF16] = {"BF16", 30, 32, 1, 2, bf16_read, bf16_write},
    [DTYPE_Q8_0] = {"Q8_0", 8, 7, QK, sizeof(struct block_q8_0), q8_0_read, q8_0_write},
    [DTYPE_Q4_0] = {"Q4_0", 2, 2, QK, sizeof(struct block_q4_0), q4_0_read, q4_0_write},
    [DTYPE_I32] = {"I32", 26, -1, 1, 4, NULL, NULL},
#define ROW(upper, lower, type, file_type, weights)                                                \
    [DTYPE_##upper] = {#upper,  type,                       file_type,                             \
                       weights, sizeof(struct block_##lower), block_##lower##_read,                \
                       block_##lower##_write}
    ROW(Q4_1, q4_1, 3, 3, QK),
    ROW(Q5_0, q5_0, 6, 8, QK),
    ROW(Q5_1, q5_1, 7, 9, QK),
    ROW(Q2_K, q2_k, 10, 10, QK_K),
    ROW(Q3_K, q3_k, 11, 11, QK_K),
    ROW(Q4_K, q4_k, 12, 14, QK_K),
    ROW(Q5_K, q5_k, 13, 16, QK_K),
    ROW(Q6_K, q6_k, 14, 18, QK_K),
    ROW(IQ4_NL, iq4_nl, 20, 25, QK),
    ROW(IQ4_XS, iq4_xs, 23, 30, QK_K),
    ROW(MXFP4, mxfp4, 39, 38, QK),
};
static_assert(COUNT_OF(rows) == DTYPE_COUNT, "one row per dtype");

const struct dtype_row *dtype_row(enum dtype d) {
    assert((unsigned)d < DTYPE_COUNT);
    return &rows[d];
}

enum dtype dtype_from_name(const char *name) {
    int d = 0;
    while (d < DTYPE_COUNT && strcasecmp(name, rows[d].name)) d++;
    return (enum dtype)d;
}

enum dtype dtype_from_gguf(uint32_t gguf_type) {
    int d = 0;
    while (d < DTYPE_COUNT && rows[d].gguf_type != gguf_type) d++;
    return (enum dtype)d;
}

bool dtype_row_bytes(enum dtype d, int64_t cols, size_t *bytes) {
    const struct dtype_row *row = dtype_row(d);
    if (cols < 0 || cols % row->block_weights) return false;
    return size_mul((size_t)(cols / row->block_weights), (size_t)row->block_bytes, bytes);
}

enum dtype dtype_that_divides(enum dtype d, int64_t cols) {
    // The choice that llama.cpp makes, so that files of odd widths look alike.
    static const enum dtype instead[DTYPE_COUNT] = {
        [DTYPE_Q2_K] = DTYPE_Q4_0, [DTYPE_Q3_K] = DTYPE_Q4_0, [DTYPE_IQ4_XS] = DTYPE_IQ4_NL,
        [DTYPE_Q4_K] = DTYPE_Q5_0, [DTYPE_Q5_K] = DTYPE_Q5_1, [DTYPE_Q6_K] = DTYPE_Q8_0};
    if (cols % dtype_row(d)->block_weights && instead[d]) d = instead[d];
    return cols % dtype_row(d)->block_weights ? DTYPE_F16 : d;
}
