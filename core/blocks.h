// blocks.h: block formats taken apart and put together.
//
// All block formats of GGUF beyond Q8_0 say the same thing in different bits:
//
//     w[j] = (d * scale[g]) * value[code[j]] - dmin * min[g]          g = j / group
//
// with d and dmin per block, scale and min small integers per group of 16 or 32 weights (1 in formats of one group),
// and a table of values that the codes point into. block_form() says which table and sizes a dtype has, its split()
// turns one block into `struct block_parts`, join() makes a block of parts. Everything else - reading, packing for
// fast products, quantizing - is written once on parts and knows no bit layout.
//
// The order of roundings is that of the formula, and equals the reference: d * scale is exact in f32 (11 + 8 bits), so
// is dmin * min, and times a value with few exceptions (Q6_K, 25 bits).
//
//     Q4_1 Q5_1        values 0..15, 0..31       dmin = -m          Q4_0 Q5_0   values -8..7, -16..15
//     IQ4_NL MXFP4     tables of 16                                 MXFP4       d = 2^(e - 128)
//     Q2_K Q4_K Q5_K   values 0..3, 0..15, 0..31, groups of 16, 32, 32 with scales and mins
//     Q3_K Q6_K        values -4..3, -32..31, groups of 16 with signed scales
//     IQ4_XS           the table of IQ4_NL, groups of 32 with signed scales
#ifndef LEHR_BLOCKS_H
#define LEHR_BLOCKS_H

#include "core/core.h"

#define QK_K 256 // weights in a block of the K formats and IQ4_XS

enum { BLOCK_MOST = QK_K, GROUPS_MOST = 16, VALUES_MOST = 64 };

struct block_q4_1 { // nibbles as in Q4_0 in all formats of 32 weights
    uint16_t d, m;
    uint8_t q[QK / 2];
};
struct block_q5_0 {
    uint16_t d;
    uint8_t high[4]; // little-endian word: bit j is bit 4 of code j
    uint8_t q[QK / 2];
};
struct block_q5_1 {
    uint16_t d, m;
    uint8_t high[4];
    uint8_t q[QK / 2];
};
struct block_iq4_nl {
    uint16_t d;
    uint8_t q[QK / 2];
};
struct block_mxfp4 {
    uint8_t e;
    uint8_t q[QK / 2];
};
struct block_q2_k {
    uint8_t scales[16]; // scale in the low nibble, min in the high one
    uint8_t q[QK_K / 4];
    uint16_t d, dmin;
};
struct block_q3_k {
    uint8_t high[QK_K / 8];
    uint8_t q[QK_K / 4];
    uint8_t scales[12]; // 16 of six bits, plus 32
    uint16_t d;
};
struct block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12]; // 8 scales and 8 mins of six bits
    uint8_t q[QK_K / 2];
};
struct block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t high[QK_K / 8];
    uint8_t q[QK_K / 2];
};
struct block_q6_k {
    uint8_t low[QK_K / 2], high[QK_K / 4];
    int8_t scales[16];
    uint16_t d;
};
struct block_iq4_xs {
    uint16_t d, scales_high; // scales of six bits, plus 32
    uint8_t scales_low[4];
    uint8_t q[QK_K / 2];
};
static_assert(sizeof(struct block_q4_1) == 20, "Q4_1 block is 20 bytes on disk");
static_assert(sizeof(struct block_q5_0) == 22, "Q5_0 block is 22 bytes on disk");
static_assert(sizeof(struct block_q5_1) == 24, "Q5_1 block is 24 bytes on disk");
static_assert(sizeof(struct block_iq4_nl) == 18, "IQ4_NL block is 18 bytes on disk");
static_assert(sizeof(struct block_mxfp4) == 17, "MXFP4 block is 17 bytes on disk");
static_assert(sizeof(struct block_q2_k) == 84, "Q2_K block is 84 bytes on disk");
static_assert(sizeof(struct block_q3_k) == 110, "Q3_K block is 110 bytes on disk");
static_assert(sizeof(struct block_q4_k) == 144, "Q4_K block is 144 bytes on disk");
static_assert(sizeof(struct block_q5_k) == 176, "Q5_K block is 176 bytes on disk");
static_assert(sizeof(struct block_q6_k) == 210, "Q6_K block is 210 bytes on disk");
static_assert(sizeof(struct block_iq4_xs) == 136, "IQ4_XS block is 136 bytes on disk");

struct block_parts {
    float d, dmin; // dmin 0 where a format has no mins
    int8_t scale[GROUPS_MOST];
    uint8_t min[GROUPS_MOST];
    uint8_t code[BLOCK_MOST];
};

struct block_form {
    int weights, group, bits; // per block, per scale, of a code
    int least, most;          // a scale; both 1 in formats without
    bool mins;
    int most_min;         // 1 where mins have no factor of their own
    const int8_t *values; // 1 << bits of them
    void (*split)(const void *block, struct block_parts *parts);
    // Parts must be in range; d and dmin are rounded to what the format stores.
    void (*join)(const struct block_parts *parts, void *block);
};
// NULL for the dtypes that are not of this kind: numbers and Q8_0.
const struct block_form *block_form(enum dtype d);

// dtype_row's members for these formats: to_f32 and from_f32.
#define BLOCK_DTYPES(X)                                                                            \
    X(Q4_1, q4_1)                                                                                  \
    X(Q5_0, q5_0)                                                                                  \
    X(Q5_1, q5_1)                                                                                  \
    X(Q2_K, q2_k)                                                                                  \
    X(Q3_K, q3_k)                                                                                  \
    X(Q4_K, q4_k)                                                                                  \
    X(Q5_K, q5_k)                                                                                  \
    X(Q6_K, q6_k)                                                                                  \
    X(IQ4_NL, iq4_nl)                                                                              \
    X(IQ4_XS, iq4_xs)                                                                              \
    X(MXFP4, mxfp4)
#define BLOCK_MEMBERS(upper, lower)                                                                \
    void block_##lower##_read(const void *src, float *dst, int64_t n);                             \
    void block_##lower##_write(const float *src, void *dst, int64_t n);                            \
    void block_##lower##_split(const void *block, struct block_parts *parts);                      \
    void block_##lower##_join(const struct block_parts *parts, void *block);
BLOCK_DTYPES(BLOCK_MEMBERS)
#undef BLOCK_MEMBERS
// Q4_0 is read and written by dtype.c; taken apart it is only quantized with an importance.
void block_q4_0_split(const void *block, struct block_parts *parts);
void block_q4_0_join(const struct block_parts *parts, void *block);

// Chooses the parts for one block of weights; importance NULL: all errors count alike. (quantize.c)
void block_choose(enum dtype d, const float *src, const float *importance,
                  struct block_parts *parts);

#endif
