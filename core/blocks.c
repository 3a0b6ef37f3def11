// blocks.c: the block formats of 32 weights, the table of all forms, and what is written once over parts.
//
// The bytes of a 32-weight block hold weight j in the low nibble of byte j and weight j + 16 in the high one; a fifth
// bit lies in a word of its own. Tables of values: methods G.2.
#include "core/blocks.h"

#include <math.h>
#include <string.h>

// ---------------------------------------------------------------------------------------------------------------
// Values that codes point into.

#define FOUR(n) (n), (n) + 1, (n) + 2, (n) + 3
#define SIXTEEN(n) FOUR(n), FOUR((n) + 4), FOUR((n) + 8), FOUR((n) + 12)
static const int8_t from_zero[32] = {SIXTEEN(0), SIXTEEN(16)};
static const int8_t around_zero_8[8] = {FOUR(-4), FOUR(0)};
static const int8_t around_zero_16[16] = {SIXTEEN(-8)};
static const int8_t around_zero_32[32] = {SIXTEEN(-16), SIXTEEN(0)};
static const int8_t around_zero_64[64] = {SIXTEEN(-32), SIXTEEN(-16), SIXTEEN(0), SIXTEEN(16)};
static const int8_t uneven[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t twice_e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const struct block_form forms[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {QK, QK, 4, 1, 1, false, 1, around_zero_16, block_q4_0_split, block_q4_0_join},
    [DTYPE_Q4_1] = {QK, QK, 4, 1, 1, true, 1, from_zero, block_q4_1_split, block_q4_1_join},
    [DTYPE_Q5_0] = {QK, QK, 5, 1, 1, false, 1, around_zero_32, block_q5_0_split, block_q5_0_join},
    [DTYPE_Q5_1] = {QK, QK, 5, 1, 1, true, 1, from_zero, block_q5_1_split, block_q5_1_join},
    [DTYPE_Q2_K] = {QK_K, 16, 2, 0, 15, true, 15, from_zero, block_q2_k_split, block_q2_k_join},
    [DTYPE_Q3_K] = {QK_K, 16, 3, -32, 31, false, 1, around_zero_8, block_q3_k_split,
                    block_q3_k_join},
    [DTYPE_Q4_K] = {QK_K, 32, 4, 0, 63, true, 63, from_zero, block_q4_k_split, block_q4_k_join},
    [DTYPE_Q5_K] = {QK_K, 32, 5, 0, 63, true, 63, from_zero, block_q5_k_split, block_q5_k_join},
    [DTYPE_Q6_K] = {QK_K, 16, 6, -128, 127, false, 1, around_zero_64, block_q6_k_split,
                    block_q6_k_join},
    [DTYPE_IQ4_NL] = {QK, QK, 4, 1, 1, false, 1, uneven, block_iq4_nl_split, block_iq4_nl_join},
    [DTYPE_IQ4_XS] = {QK_K, 32, 4, -32, 31, false, 1, uneven, block_iq4_xs_split,
                      block_iq4_xs_join},
    [DTYPE_MXFP4] = {QK, QK, 4, 1, 1, false, 1, twice_e2m1, block_mxfp4_split, block_mxfp4_join},
};

const struct block_form *block_form(enum dtype d) {
    assert((unsigned)d < DTYPE_COUNT);
    return forms[d].split ? &forms[d] : NULL;
}

// ---------------------------------------------------------------------------------------------------------------
// Reading and writing rows.

static void parts_read(const struct block_form *form, const struct block_parts *p, float *dst) {
    for (int at = 0, g = 0; at < form->weights; at += form->group, g++) {
        const float d = p->d * (float)p->scale[g], m = p->dmin * (float)p->min[g];
        for (int j = at; j < at + form->group; j++)
            dst[j] = d * (float)form->values[p->code[j]] - m;
    }
}

static void blocks_read(enum dtype dtype, const void *src, float *dst, int64_t n) {
    const struct block_form *form = &forms[dtype];
    const unsigned char *block = src;
    struct block_parts parts;
    for (int64_t i = 0; i < n; i += form->weights, block += dtype_row(dtype)->block_bytes) {
        form->split(block, &parts);
        parts_read(form, &parts, dst + i);
    }
}

static void blocks_write(enum dtype dtype, const float *src, void *dst, int64_t n,
                         const float *importance) {
    const struct block_form *form = &forms[dtype];
    unsigned char *block = dst;
    struct block_parts parts;
    for (int64_t i = 0; i < n; i += form->weights, block += dtype_row(dtype)->block_bytes) {
        block_choose(dtype, src + i, importance ? importance + i : NULL, &parts);
        form->join(&parts, block);
    }
}

#define MEMBERS(upper, lower)                                                                      \
    void block_##lower##_read(const void *src, float *dst, int64_t n) {                            \
        blocks_read(DTYPE_##upper, src, dst, n);                                                   \
    }                                                                                              \
    void block_##lower##_write(const float *src, void *dst, int64_t n) {                           \
        blocks_write(DTYPE_##upper, src, dst, n, NULL);                                            \
    }
BLOCK_DTYPES(MEMBERS)

void dtype_quantize(enum dtype d, const float *src, void *dst, int64_t n, const float *importance) {
    const struct dtype_row *row = dtype_row(d);
    assert(row->from_f32 && n >= 0 && n % row->block_weights == 0);
    if (importance && forms[d].split)
        blocks_write(d, src, dst, n, importance);
    else
        row->from_f32(src, dst, n);
}

// ---------------------------------------------------------------------------------------------------------------
// Bits of 32-weight blocks.

static void one_group(struct block_parts *p, float d, float dmin) {
    p->d = d;
    p->dmin = dmin;
    p->scale[0] = 1;
    p->min[0] = 1;
}
static void nibbles_split(const uint8_t *q, uint8_t code[QK]) {
    for (int j = 0; j < QK / 2; j++) {
        code[j] = q[j] & 15;
        code[j + QK / 2] = q[j] >> 4;
    }
}
static void nibbles_join(const uint8_t code[QK], uint8_t *q) {
    for (int j = 0; j < QK / 2; j++)
        q[j] = (uint8_t)((code[j] & 15) | (code[j + QK / 2] & 15) << 4);
}
static void fifth_split(const uint8_t high[4], uint8_t code[QK]) {
    for (int j = 0; j < QK; j++) code[j] |= (uint8_t)((high[j / 8] >> j % 8 & 1) << 4);
}
static void fifth_join(const uint8_t code[QK], uint8_t high[4]) {
    memset(high, 0, 4);
    for (int j = 0; j < QK; j++) high[j / 8] |= (uint8_t)((code[j] >> 4) << j % 8);
}

void block_q4_0_split(const void *block, struct block_parts *parts) {
    const struct block_q4_0 *b = block;
    one_group(parts, f16_to_f32(b->d), 0);
    nibbles_split(b->q, parts->code);
}
void block_q4_0_join(const struct block_parts *parts, void *block) {
    struct block_q4_0 *b = block;
    b->d = f16_from_f32(parts->d);
    nibbles_join(parts->code, b->q);
}

void block_q4_1_split(const void *block, struct block_parts *parts) {
    const struct block_q4_1 *b = block;
    one_group(parts, f16_to_f32(b->d), -f16_to_f32(b->m));
    nibbles_split(b->q, parts->code);
}
void block_q4_1_join(const struct block_parts *parts, void *block) {
    struct block_q4_1 *b = block;
    b->d = f16_from_f32(parts->d);
    b->m = f16_from_f32(-parts->dmin);
    nibbles_join(parts->code, b->q);
}

void block_q5_0_split(const void *block, struct block_parts *parts) {
    const struct block_q5_0 *b = block;
    one_group(parts, f16_to_f32(b->d), 0);
    nibbles_split(b->q, parts->code);
    fifth_split(b->high, parts->code);
}
void block_q5_0_join(const struct block_parts *parts, void *block) {
    struct block_q5_0 *b = block;
    b->d = f16_from_f32(parts->d);
    nibbles_join(parts->code, b->q);
    fifth_join(parts->code, b->high);
}

void block_q5_1_split(const void *block, struct block_parts *parts) {
    const struct block_q5_1 *b = block;
    one_group(parts, f16_to_f32(b->d), -f16_to_f32(b->m));
    nibbles_split(b->q, parts->code);
    fifth_split(b->high, parts->code);
}
void block_q5_1_join(const struct block_parts *parts, void *block) {
    struct block_q5_1 *b = block;
    b->d = f16_from_f32(parts->d);
    b->m = f16_from_f32(-parts->dmin);
    nibbles_join(parts->code, b->q);
    fifth_join(parts->code, b->high);
}

void block_iq4_nl_split(const void *block, struct block_parts *parts) {
    const struct block_iq4_nl *b = block;
    one_group(parts, f16_to_f32(b->d), 0);
    nibbles_split(b->q, parts->code);
}
void block_iq4_nl_join(const struct block_parts *parts, void *block) {
    struct block_iq4_nl *b = block;
    b->d = f16_from_f32(parts->d);
    nibbles_join(parts->code, b->q);
}

// d is a power of two, 2^-128 to 2^127: exact as f32 and, its upper half, as bf16.
void block_mxfp4_split(const void *block, struct block_parts *parts) {
    const struct block_mxfp4 *b = block;
    one_group(parts, ldexpf(1, b->e - 128), 0);
    nibbles_split(b->q, parts->code);
}
void block_mxfp4_join(const struct block_parts *parts, void *block) {
    struct block_mxfp4 *b = block;
    const int e = parts->d > 0 ? ilogbf(parts->d) + 128 : 0;
    b->e = (uint8_t)(e < 0 ? 0 : e > 255 ? 255 : e);
    nibbles_join(parts->code, b->q);
}
