// blocks.cuh: rows of the block formats (core/blocks.h) on the GPU.
//
// Every format is codes with factors: w = (d * scale) * value - dmin * min. What reads them here reads a *unit*: of 128 columns of
// a row, the part of one of four lanes, and the factors of all. Lane t has of each 32 columns c the columns 4t..4t+3 and 16+4t..,
// which is what a lane of a product of fragments holds (mma_s8, mma_bf16). A unit comes from
//
//   unit_gather   a row as it lies in a file, any address
//   unit_load     a packed row: what weight_load makes of it (unit_store)
//
// and becomes words of four values (unit_words) and factors (unit_factors); nothing else knows any bit. A packed row has as many
// bytes as in the file (columns up to a multiple of 128, Q3_K's scales of 8 bits), in planes, each for all columns:
//
//   octets   codes of 8 bits: 2 x 4 lanes x 16 bytes a unit: of two chunks of 32 columns two words
//   nibbles  the low 4 bits: 4 lanes x 16 bytes: a word a chunk, columns 4t.. in low nibbles, 16+4t.. in high ones
//   pairs    2 bits (codes of 2 and 3 bits, top of 6): 4 lanes x 8 bytes: byte i holds columns 4t+i, 16+4t+i, of two chunks
//   singles  1 bit (top of 3 and 5): 4 lanes x 4 bytes: byte i holds columns 4t+i, 16+4t+i of four chunks
//   scales   of groups of 16, 8 bytes a unit
//   heads    a unit's, or a block's of 256: what is left, as in the file
//
// A code with its zero in the middle of its range comes out shifted to the top of its byte with the sign turned, which makes
// it a signed byte at the price of the shift that brings it out anyway; its factor is smaller by that power of two. No
// number below is rounded by that: results are those of the formula, bit for bit.
#ifndef LEHR_CUDA_BLOCKS_CUH
#define LEHR_CUDA_BLOCKS_CUH

#include "cuda/cuda.cuh"

enum { UNIT = 128, UNIT_LANES = 4, CHUNK = 32, CHUNKS = UNIT / CHUNK };

// All of these are folded: the dtype is a constant wherever they are called on a GPU.
#define FOLDED static __host__ __device__ __forceinline__
FOLDED bool is_coded(enum dtype t) { return t != DTYPE_F32 && t != DTYPE_F16 && t != DTYPE_BF16 && t != DTYPE_I32 && t < DTYPE_COUNT; }
FOLDED bool coded_mins(enum dtype t) { return t == DTYPE_Q4_1 || t == DTYPE_Q5_1 || t == DTYPE_Q2_K || t == DTYPE_Q4_K || t == DTYPE_Q5_K; }
FOLDED int coded_bits(enum dtype t) {
    return t == DTYPE_Q2_K ? 2 : t == DTYPE_Q3_K ? 3 : t == DTYPE_Q6_K ? 6 : t == DTYPE_Q8_0 ? 8 : t == DTYPE_Q5_0 || t == DTYPE_Q5_1 || t == DTYPE_Q5_K ? 5 : 4;
}
FOLDED bool coded_scales(enum dtype t) { // else a block is one group of 32 columns
    return t == DTYPE_Q2_K || t == DTYPE_Q3_K || t == DTYPE_Q4_K || t == DTYPE_Q5_K || t == DTYPE_Q6_K || t == DTYPE_IQ4_XS;
}
FOLDED int coded_group(enum dtype t) { return t == DTYPE_Q2_K || t == DTYPE_Q3_K || t == DTYPE_Q6_K ? 16 : 32; }
FOLDED bool coded_octets(enum dtype t) { return coded_bits(t) == 8; }
FOLDED bool coded_nibbles(enum dtype t) { return coded_bits(t) >= 4 && coded_bits(t) < 8; }
FOLDED bool coded_pairs(enum dtype t) { return coded_bits(t) % 4 >= 2; }
FOLDED bool coded_singles(enum dtype t) { return coded_bits(t) % 2 == 1; }
FOLDED bool coded_table(enum dtype t) { return t == DTYPE_IQ4_NL || t == DTYPE_IQ4_XS || t == DTYPE_MXFP4; }
FOLDED bool coded_centred(enum dtype t) { return !coded_mins(t) && !coded_table(t) && !coded_octets(t); } // value = code - half the range
FOLDED int coded_up(enum dtype t) { return coded_centred(t) ? 8 - coded_bits(t) : 0; }

FOLDED int coded_block_bytes(enum dtype t) {
    switch (t) {
    case DTYPE_Q8_0: return sizeof(struct block_q8_0);
    case DTYPE_Q4_0: return sizeof(struct block_q4_0);
#define BLOCK_BYTES(upper, lower) case DTYPE_##upper: return sizeof(struct block_##lower);
    BLOCK_DTYPES(BLOCK_BYTES)
#undef BLOCK_BYTES
    default: return 0;
    }
}
FOLDED int coded_terms(enum dtype t) { return coded_scales(t) ? QK_K : QK; } // columns of a block

// Bytes of a packed row.
FOLDED int coded_head_bytes(enum dtype t) { // of a unit; of a block where blocks have 256 columns
    if (!coded_scales(t)) return t == DTYPE_MXFP4 ? 4 : coded_mins(t) ? 16 : 8;
    return t == DTYPE_Q4_K || t == DTYPE_Q5_K ? 16 : t == DTYPE_IQ4_XS ? 8 : t == DTYPE_Q2_K ? 4 : 2;
}
FOLDED int coded_unit_bytes(enum dtype t) { // but for the heads
    return 128 * coded_octets(t) + 64 * coded_nibbles(t) + 32 * coded_pairs(t) + 16 * coded_singles(t) + 8 * (coded_group(t) == 16);
}
FOLDED int coded_units(int64_t cols) { return (int)ceil_div(cols, UNIT); }
FOLDED size_t coded_row_bytes(enum dtype t, int64_t cols) {
    const size_t units = (size_t)coded_units(cols), heads = coded_scales(t) ? units / 2 : units;
    return (units * (size_t)coded_unit_bytes(t) + heads * (size_t)coded_head_bytes(t) + 15) & ~(size_t)15;
}

// ---------------------------------------------------------------------------------------------------------------
// A unit of one lane, as it lies in a packed row; members that a format does not have are not there.

struct unit {
    uint4 a, b; // octets, or nibbles in a
    uint2 pairs;
    uint32_t singles;
    uint4 head; // all heads of the unit; scales in x, y and what is the block's in z where groups have 16 columns
};

static __device__ __forceinline__ uint32_t part_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
static __device__ __forceinline__ uint32_t half_of(uint32_t v, int i) { return v >> 16 * i & 0xffff; }
static __device__ __forceinline__ uint32_t byte_of(uint32_t v, int i) { return v >> 8 * i & 0xff; }

template <enum dtype D> static __device__ __forceinline__ void unit_load(struct unit *x, const void *row, int units, int u, int t) {
    const unsigned char *p = (const unsigned char *)row;
    if (coded_octets(D)) {
        x->a = __ldg((const uint4 *)(p + u * 128 + t * 16)), x->b = __ldg((const uint4 *)(p + u * 128 + t * 16 + 64));
        p += (size_t)units * 128;
    }
    if (coded_nibbles(D)) x->a = __ldg((const uint4 *)(p + u * 64 + t * 16)), p += (size_t)units * 64;
    if (coded_pairs(D)) x->pairs = __ldg((const uint2 *)(p + u * 32 + t * 8)), p += (size_t)units * 32;
    if (coded_singles(D)) x->singles = __ldg((const uint32_t *)(p + u * 16 + t * 4)), p += (size_t)units * 16;
    if (coded_group(D) == 16) {
        const uint2 scales = __ldg((const uint2 *)(p + u * 8));
        x->head.x = scales.x, x->head.y = scales.y, p += (size_t)units * 8;
    }
    p += (coded_scales(D) ? u / 2 : u) * coded_head_bytes(D);
    if (coded_head_bytes(D) == 16) x->head = __ldg((const uint4 *)p);
    if (coded_head_bytes(D) == 8) {
        const uint2 head = __ldg((const uint2 *)p);
        x->head.x = head.x, x->head.y = head.y;
    }
    if (coded_head_bytes(D) == 4) (D == DTYPE_Q2_K ? x->head.z : x->head.x) = __ldg((const uint32_t *)p);
    if (coded_head_bytes(D) == 2) x->head.z = __ldg((const uint16_t *)p);
}

template <enum dtype D> static __device__ __forceinline__ void unit_store(const struct unit *x, void *row, int units, int u, int t) {
    unsigned char *p = (unsigned char *)row;
    if (coded_octets(D)) {
        *(uint4 *)(p + u * 128 + t * 16) = x->a, *(uint4 *)(p + u * 128 + t * 16 + 64) = x->b;
        p += (size_t)units * 128;
    }
    if (coded_nibbles(D)) *(uint4 *)(p + u * 64 + t * 16) = x->a, p += (size_t)units * 64;
    if (coded_pairs(D)) *(uint2 *)(p + u * 32 + t * 8) = x->pairs, p += (size_t)units * 32;
    if (coded_singles(D)) *(uint32_t *)(p + u * 16 + t * 4) = x->singles, p += (size_t)units * 16;
    if (t) return;
    if (coded_group(D) == 16) *(uint2 *)(p + u * 8) = make_uint2(x->head.x, x->head.y), p += (size_t)units * 8;
    if (coded_scales(D) && u % 2) return;
    p += (coded_scales(D) ? u / 2 : u) * coded_head_bytes(D);
    if (coded_head_bytes(D) == 16) *(uint4 *)p = x->head;
    if (coded_head_bytes(D) == 8) *(uint2 *)p = make_uint2(x->head.x, x->head.y);
    if (coded_head_bytes(D) == 4) *(uint32_t *)p = D == DTYPE_Q2_K ? x->head.z : x->head.x;
    if (coded_head_bytes(D) == 2) *(uint16_t *)p = (uint16_t)x->head.z;
}

// ---------------------------------------------------------------------------------------------------------------
// Out of a file's bytes.

// Blocks with f16 in them lie at even addresses; MXFP4's anywhere.
template <enum dtype D> static __device__ __forceinline__ uint32_t file_two(const void *p) {
    if (D != DTYPE_MXFP4) return *(const uint16_t *)p;
    return ((const uint8_t *)p)[0] | (uint32_t)((const uint8_t *)p)[1] << 8;
}
template <enum dtype D> static __device__ __forceinline__ uint32_t file_four(const void *p) {
    return file_two<D>(p) | file_two<D>((const char *)p + 2) << 16;
}
static __device__ __forceinline__ uint32_t bits_at(uint32_t w, int from, int mask) { return w >> from & (uint32_t)mask * 0x01010101u; }

// Codes j..j+3 of a block, one a byte; j a multiple of 4.
template <enum dtype D> static __device__ __forceinline__ uint32_t file_codes(const unsigned char *block, int j) {
    const int s = j / 32, l = j % 32;
    switch (D) {
    case DTYPE_Q8_0: return file_four<D>(((const struct block_q8_0 *)block)->q + j);
    case DTYPE_Q4_0: return bits_at(file_four<D>(((const struct block_q4_0 *)block)->q + j % 16), j / 16 * 4, 15);
    case DTYPE_Q4_1: return bits_at(file_four<D>(((const struct block_q4_1 *)block)->q + j % 16), j / 16 * 4, 15);
    case DTYPE_IQ4_NL: return bits_at(file_four<D>(((const struct block_iq4_nl *)block)->q + j % 16), j / 16 * 4, 15);
    case DTYPE_MXFP4: return bits_at(file_four<D>(((const struct block_mxfp4 *)block)->q + j % 16), j / 16 * 4, 15);
    case DTYPE_Q5_0:
    case DTYPE_Q5_1: {
        const uint8_t *q = D == DTYPE_Q5_0 ? ((const struct block_q5_0 *)block)->q : ((const struct block_q5_1 *)block)->q;
        const uint32_t high = file_four<D>(q - 4) >> j; // bits 0..3 go to bit 4 of the bytes
        return bits_at(file_four<D>(q + j % 16), j / 16 * 4, 15) | (high & 1) << 4 | (high & 2) << 11 | (high & 4) << 18 | (high & 8) << 25;
    }
    case DTYPE_Q2_K: return bits_at(file_four<D>(((const struct block_q2_k *)block)->q + s / 4 * 32 + l), s % 4 * 2, 3);
    case DTYPE_Q3_K: {
        const struct block_q3_k *b = (const struct block_q3_k *)block;
        return bits_at(file_four<D>(b->q + s / 4 * 32 + l), s % 4 * 2, 3) | bits_at(file_four<D>(b->high + l), s, 1) << 2;
    }
    case DTYPE_Q4_K: return bits_at(file_four<D>(((const struct block_q4_k *)block)->q + s / 2 * 32 + l), s % 2 * 4, 15);
    case DTYPE_Q5_K: {
        const struct block_q5_k *b = (const struct block_q5_k *)block;
        return bits_at(file_four<D>(b->q + s / 2 * 32 + l), s % 2 * 4, 15) | bits_at(file_four<D>(b->high + l), s, 1) << 4;
    }
    case DTYPE_Q6_K: {
        const struct block_q6_k *b = (const struct block_q6_k *)block;
        return bits_at(file_four<D>(b->low + j / 128 * 64 + j % 64), j % 128 / 64 * 4, 15) | bits_at(file_four<D>(b->high + s / 4 * 32 + l), s % 4 * 2, 3) << 4;
    }
    case DTYPE_IQ4_XS: return bits_at(file_four<D>(((const struct block_iq4_xs *)block)->q + 16 * s + l % 16), l / 16 * 4, 15);
    default: return 0;
    }
}

// Heads of unit u; blocks behind the end of the row are zero.
template <enum dtype D> static __device__ __forceinline__ uint4 file_heads(const unsigned char *row, int64_t cols, int u) {
    uint32_t head[4] = {0, 0, 0, 0};
    if (!coded_scales(D)) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            const unsigned char *block = row + (size_t)(u * CHUNKS + c) * coded_block_bytes(D);
            if ((int64_t)(u * CHUNKS + c) * CHUNK >= cols) continue;
            if (D == DTYPE_MXFP4) head[0] |= (uint32_t)block[0] << 8 * c;
            else if (coded_mins(D)) head[c] = file_four<D>(block);
            else head[c / 2] |= file_two<D>(block) << 16 * (c % 2);
        }
        return make_uint4(head[0], head[1], head[2], head[3]);
    }
    const unsigned char *block = row + (size_t)(u / 2) * coded_block_bytes(D);
    if (D == DTYPE_Q4_K || D == DTYPE_Q5_K || D == DTYPE_IQ4_XS)
        for (int i = 0; i < coded_head_bytes(D) / 4; i++) head[i] = file_four<D>(block + 4 * i);
    if (D == DTYPE_Q2_K || D == DTYPE_Q6_K) {
        const uint8_t *scales = D == DTYPE_Q2_K ? ((const struct block_q2_k *)block)->scales : (const uint8_t *)((const struct block_q6_k *)block)->scales;
        head[0] = file_four<D>(scales + u % 2 * 8), head[1] = file_four<D>(scales + u % 2 * 8 + 4);
        head[2] = D == DTYPE_Q2_K ? file_four<D>(&((const struct block_q2_k *)block)->d) : file_two<D>(&((const struct block_q6_k *)block)->d);
    }
    if (D == DTYPE_Q3_K) {
        const struct block_q3_k *b = (const struct block_q3_k *)block;
        for (int i = 0; i < 8; i++) {
            const int g = u % 2 * 8 + i, low = b->scales[g % 8] >> (g / 8 * 4) & 15, high = b->scales[8 + g % 4] >> (g / 4 * 2) & 3;
            head[i / 4] |= (uint32_t)(((low | high << 4) - 32) & 255) << 8 * (i % 4);
        }
        head[2] = file_two<D>(&b->d);
    }
    return make_uint4(head[0], head[1], head[2], head[3]);
}

template <enum dtype D> static __device__ __forceinline__ void unit_gather(struct unit *x, const void *row, int64_t cols, int u, int t) {
    const unsigned char *p = (const unsigned char *)row;
    uint32_t octets[8], nibbles[4] = {0, 0, 0, 0}, pairs[2] = {0, 0}, singles = 0;
#pragma unroll
    for (int i = 0; i < 2 * CHUNKS; i++) {
        const int c = i / 2, h = i % 2, to = D == DTYPE_Q6_K ? 4 : 0;
        const int64_t col = (int64_t)u * UNIT + c * CHUNK + h * 16 + t * 4;
        const uint32_t codes = col < cols ? file_codes<D>(p + (size_t)(col / coded_terms(D)) * coded_block_bytes(D), (int)(col % coded_terms(D))) : 0;
        octets[i] = codes;
        nibbles[c] |= bits_at(codes, 0, 15) << 4 * h;
        pairs[c / 2] |= bits_at(codes, to, 3) << (c % 2 * 4 + 2 * h);
        singles |= bits_at(codes, coded_bits(D) - 1, 1) << i;
    }
    x->a = coded_octets(D) ? make_uint4(octets[0], octets[1], octets[2], octets[3]) : make_uint4(nibbles[0], nibbles[1], nibbles[2], nibbles[3]);
    x->b = make_uint4(octets[4], octets[5], octets[6], octets[7]);
    x->pairs = make_uint2(pairs[0], pairs[1]);
    x->singles = singles;
    x->head = file_heads<D>(p, cols, u);
}
template <enum dtype D, bool PACKED> static __device__ __forceinline__ void unit_read(struct unit *x, const void *row, int64_t cols, int u, int t) {
    if (PACKED) unit_load<D>(x, row, coded_units(cols), u, t);
    else unit_gather<D>(x, row, cols, u, t);
}

// ---------------------------------------------------------------------------------------------------------------
// Values and factors.

// Bits `mask` from bit `from` of every byte on, moved to bit `to`.
static __device__ __forceinline__ uint32_t bits_moved(uint32_t w, int from, int to, int mask) {
    return (to > from ? w << (to - from) : w >> (from - to)) & (uint32_t)(mask << to) * 0x01010101u;
}

// Eight codes of four bits through a table of 16 bytes: a permutation of bytes looks four codes up in eight bytes by their
// three low bits, another one chooses by the fourth. Values of low nibbles in w[0], of high ones in w[1].
static __device__ __forceinline__ void table_eight(uint32_t q, uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3, uint32_t w[2]) {
    const uint32_t at = q & 0x77777777u, upper = (q & 0x88888888u) >> 1;
    const uint32_t first = __byte_perm(__byte_perm(t0, t1, at), __byte_perm(t2, t3, at), 0x3210u | (upper & 0xffffu));
    const uint32_t last = __byte_perm(__byte_perm(t0, t1, at >> 16), __byte_perm(t2, t3, at >> 16), 0x3210u | upper >> 16);
    w[0] = __byte_perm(first, last, 0x6420), w[1] = __byte_perm(first, last, 0x7531);
}

// Values of columns 4t..4t+3 and 16+4t.. of chunk c, signed bytes, times 2^coded_up.
template <enum dtype D> static __device__ __forceinline__ void unit_words(const struct unit *x, int c, uint32_t w[2]) {
    if (coded_octets(D)) {
        const uint4 q = c < 2 ? x->a : x->b;
        w[0] = c % 2 ? q.z : q.x, w[1] = c % 2 ? q.w : q.y;
        return;
    }
    const uint32_t q = coded_nibbles(D) ? part_of(x->a, c) : 0;
    if (D == DTYPE_MXFP4) { // 0 1 2 3  4 6 8 12  and their negatives
        table_eight(q, 0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc, w);
        return;
    }
    if (coded_table(D)) { // -127 -104 -83 -65  -49 -35 -22 -10  1 13 25 38  53 69 89 113
        table_eight(q, 0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535, w);
        return;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t v = 0;
        if (coded_nibbles(D)) v = bits_moved(q, 4 * h, coded_up(D), 15);
        if (coded_pairs(D)) v |= bits_moved(c < 2 ? x->pairs.x : x->pairs.y, c % 2 * 4 + 2 * h, coded_up(D) + (D == DTYPE_Q6_K ? 4 : 0), 3);
        if (coded_singles(D)) v |= bits_moved(x->singles, 2 * c + h, coded_up(D) + coded_bits(D) - 1, 1);
        w[h] = coded_centred(D) ? v ^ 0x80808080u : v;
    }
}

// Of group g of the unit, g < UNIT / coded_group: what a value of unit_words is multiplied with, and what is added to it after.
template <enum dtype D> static __device__ __forceinline__ void unit_factor(const struct unit *x, int u, int g, float *dl, float *ml) {
    *ml = 0;
    if (D == DTYPE_MXFP4) { // 2^(e - 128), the two smallest ones subnormal
        const uint32_t e = byte_of(x->head.x, g);
        *dl = __uint_as_float(e > 1 ? (e - 1) << 23 : 0x00200000u << e);
    } else if (!coded_scales(D) && coded_mins(D)) {
        *dl = from_f16((uint16_t)part_of(x->head, g)), *ml = from_f16((uint16_t)(part_of(x->head, g) >> 16));
    } else if (!coded_scales(D)) {
        *dl = from_f16((uint16_t)half_of(g < 2 ? x->head.x : x->head.y, g % 2));
    } else if (D == DTYPE_Q4_K || D == DTYPE_Q5_K) {
        const uint32_t low = bits_at(x->head.w, 0, 15), high = bits_at(x->head.w, 4, 15);
        const uint32_t scales = u % 2 ? low | bits_at(x->head.y, 6, 3) << 4 : bits_at(x->head.y, 0, 63);
        const uint32_t mins = u % 2 ? high | bits_at(x->head.z, 6, 3) << 4 : bits_at(x->head.z, 0, 63);
        *dl = __fmul_rn(from_f16((uint16_t)x->head.x), (float)byte_of(scales, g));
        *ml = __fmul_rn(-from_f16((uint16_t)(x->head.x >> 16)), (float)byte_of(mins, g));
    } else if (D == DTYPE_Q2_K) {
        const uint32_t both = byte_of(g < 4 ? x->head.x : x->head.y, g % 4);
        *dl = __fmul_rn(from_f16((uint16_t)x->head.z), (float)(both & 15));
        *ml = __fmul_rn(-from_f16((uint16_t)(x->head.z >> 16)), (float)(both >> 4));
    } else if (D == DTYPE_IQ4_XS) {
        const int at = u % 2 * 4 + g, low = (int)(x->head.y >> 4 * at & 15), high = (int)(x->head.x >> (16 + 2 * at) & 3);
        *dl = __fmul_rn(from_f16((uint16_t)x->head.x), (float)((low | high << 4) - 32));
    } else {
        *dl = __fmul_rn(from_f16((uint16_t)x->head.z), (float)(int8_t)byte_of(g < 4 ? x->head.x : x->head.y, g % 4));
    }
    if (coded_up(D)) *dl = __fmul_rn(*dl, 1.f / (float)(1 << coded_up(D)));
}

// The four numbers of a word; two roundings where there is a min, as in to_f32.
template <enum dtype D> static __device__ __forceinline__ void word_numbers(uint32_t word, float dl, float ml, float to[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float value = __fmul_rn((float)(int8_t)byte_of(word, i), dl);
        to[i] = coded_mins(D) ? __fadd_rn(value, ml) : value;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// On the host.

#define CODED_DTYPES(X) X(Q8_0, q8_0) X(Q4_0, q4_0) BLOCK_DTYPES(X)

// Packs rows of `from`, ROWS of a block format in device memory, into `to` of coded_row_bytes each.
void cuda_pack_rows(const struct tensor *from, void *to); // embed.cu
// Rows of any dtype and layout as rows of numbers, of one shape.
void cuda_expand_rows(const struct tensor *to, const struct tensor *from); // embed.cu
// dst, ROWS of a block format, from src, f32 of its shape.
void cuda_quantize(const struct tensor *dst, const struct tensor *src); // quantize.cu
#endif
