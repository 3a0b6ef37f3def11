// blocks_k.c: bits of the block formats of 256 weights.
//
// Codes lie in planes over the block: the low bits of several stretches of 32 weights share the same 32 bytes, stretch
// after stretch at higher bit positions; the high bits, where a code has more, lie in a plane of their own. Six-bit
// scales are spread over 12 bytes so that a shift and a mask fetch four at once. (methods G.2)
#include "core/blocks.h"

#include <string.h>

// Codes of `bits` bits: a run of 32 bytes holds 8 / bits stretches of 32, the first in the lowest bits.
static void plane_split(const uint8_t *q, int bits, uint8_t code[QK_K]) {
    const int per_run = 8 / bits, mask = (1 << bits) - 1;
    for (int s = 0; s < QK_K / 32; s++) {
        const uint8_t *from = q + s / per_run * 32;
        const int shift = s % per_run * bits;
        for (int l = 0; l < 32; l++) code[32 * s + l] = (uint8_t)(from[l] >> shift & mask);
    }
}
// The bits [from, from + bits) of the codes.
static void plane_join(const uint8_t code[QK_K], int from, int bits, uint8_t *q) {
    const int per_run = 8 / bits, mask = (1 << bits) - 1;
    memset(q, 0, (size_t)(QK_K * bits / 8));
    for (int s = 0; s < QK_K / 32; s++)
        for (int l = 0; l < 32; l++)
            q[s / per_run * 32 + l] |=
                (uint8_t)((code[32 * s + l] >> from & mask) << (s % per_run * bits));
}
static void plane_add(const uint8_t *q, int bits, int at, uint8_t code[QK_K]) {
    uint8_t more[QK_K];
    plane_split(q, bits, more);
    for (int j = 0; j < QK_K; j++) code[j] |= (uint8_t)(more[j] << at);
}

void block_q2_k_split(const void *block, struct block_parts *parts) {
    const struct block_q2_k *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = f16_to_f32(b->dmin);
    for (int g = 0; g < 16; g++) {
        parts->scale[g] = b->scales[g] & 15;
        parts->min[g] = b->scales[g] >> 4;
    }
    plane_split(b->q, 2, parts->code);
}
void block_q2_k_join(const struct block_parts *parts, void *block) {
    struct block_q2_k *b = block;
    b->d = f16_from_f32(parts->d);
    b->dmin = f16_from_f32(parts->dmin);
    for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)(parts->scale[g] | parts->min[g] << 4);
    plane_join(parts->code, 0, 2, b->q);
}

// Scale g less 32: four low bits in byte g % 8, two high bits in byte 8 + g % 4.
void block_q3_k_split(const void *block, struct block_parts *parts) {
    const struct block_q3_k *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = 0;
    memset(parts->min, 0, sizeof parts->min);
    for (int g = 0; g < 16; g++) {
        const int low = b->scales[g % 8] >> (g / 8 * 4) & 15,
                  high = b->scales[8 + g % 4] >> (g / 4 * 2) & 3;
        parts->scale[g] = (int8_t)((low | high << 4) - 32);
    }
    plane_split(b->q, 2, parts->code);
    plane_add(b->high, 1, 2, parts->code);
}
void block_q3_k_join(const struct block_parts *parts, void *block) {
    struct block_q3_k *b = block;
    b->d = f16_from_f32(parts->d);
    memset(b->scales, 0, sizeof b->scales);
    for (int g = 0; g < 16; g++) {
        const int s = parts->scale[g] + 32;
        b->scales[g % 8] |= (uint8_t)((s & 15) << (g / 8 * 4));
        b->scales[8 + g % 4] |= (uint8_t)(s >> 4 << (g / 4 * 2));
    }
    plane_join(parts->code, 0, 2, b->q);
    plane_join(parts->code, 2, 1, b->high);
}

// Scales and mins 0-3 are the low six bits of bytes 0-3 and 4-7; of 4-7 the low nibbles are in bytes 8-11 and the high
// two bits on top of bytes 0-3 and 4-7.
static void six_bits_split(const uint8_t s[12], struct block_parts *parts) {
    for (int g = 0; g < 4; g++) {
        parts->scale[g] = s[g] & 63;
        parts->min[g] = s[g + 4] & 63;
        parts->scale[g + 4] = (int8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        parts->min[g + 4] = (uint8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}
static void six_bits_join(const struct block_parts *parts, uint8_t s[12]) {
    for (int g = 0; g < 4; g++) {
        const int scale = parts->scale[g + 4], min = parts->min[g + 4];
        s[g] = (uint8_t)(parts->scale[g] | scale >> 4 << 6);
        s[g + 4] = (uint8_t)(parts->min[g] | min >> 4 << 6);
        s[g + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

void block_q4_k_split(const void *block, struct block_parts *parts) {
    const struct block_q4_k *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = f16_to_f32(b->dmin);
    six_bits_split(b->scales, parts);
    plane_split(b->q, 4, parts->code);
}
void block_q4_k_join(const struct block_parts *parts, void *block) {
    struct block_q4_k *b = block;
    b->d = f16_from_f32(parts->d);
    b->dmin = f16_from_f32(parts->dmin);
    six_bits_join(parts, b->scales);
    plane_join(parts->code, 0, 4, b->q);
}

void block_q5_k_split(const void *block, struct block_parts *parts) {
    const struct block_q5_k *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = f16_to_f32(b->dmin);
    six_bits_split(b->scales, parts);
    plane_split(b->q, 4, parts->code);
    plane_add(b->high, 1, 4, parts->code);
}
void block_q5_k_join(const struct block_parts *parts, void *block) {
    struct block_q5_k *b = block;
    b->d = f16_from_f32(parts->d);
    b->dmin = f16_from_f32(parts->dmin);
    six_bits_join(parts, b->scales);
    plane_join(parts->code, 0, 4, b->q);
    plane_join(parts->code, 4, 1, b->high);
}

// In each half of 128 the low nibbles of stretches 0, 1 and 2, 3 share 64 bytes, so a run of nibbles is 64 wide here.
void block_q6_k_split(const void *block, struct block_parts *parts) {
    const struct block_q6_k *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = 0;
    memset(parts->min, 0, sizeof parts->min);
    memcpy(parts->scale, b->scales, sizeof b->scales);
    for (int s = 0; s < 4; s++)
        for (int l = 0; l < 64; l++)
            parts->code[64 * s + l] = b->low[s / 2 * 64 + l] >> (s % 2 * 4) & 15;
    plane_add(b->high, 2, 4, parts->code);
}
void block_q6_k_join(const struct block_parts *parts, void *block) {
    struct block_q6_k *b = block;
    b->d = f16_from_f32(parts->d);
    memcpy(b->scales, parts->scale, sizeof b->scales);
    memset(b->low, 0, sizeof b->low);
    for (int j = 0; j < QK_K; j++)
        b->low[j / 128 * 64 + j % 64] |=
            (uint8_t)((parts->code[j] & 15) << (j % 128 / 64 * 4));
    plane_join(parts->code, 4, 2, b->high);
}

// Each stretch of 32 has 16 bytes of its own, as in IQ4_NL.
void block_iq4_xs_split(const void *block, struct block_parts *parts) {
    const struct block_iq4_xs *b = block;
    parts->d = f16_to_f32(b->d);
    parts->dmin = 0;
    memset(parts->min, 0, sizeof parts->min);
    for (int g = 0; g < 8; g++) {
        const int low = b->scales_low[g / 2] >> (g % 2 * 4) & 15, high = b->scales_high >> 2 * g & 3;
        parts->scale[g] = (int8_t)((low | high << 4) - 32);
        for (int l = 0; l < 16; l++) {
            parts->code[32 * g + l] = b->q[16 * g + l] & 15;
            parts->code[32 * g + l + 16] = b->q[16 * g + l] >> 4;
        }
    }
}
void block_iq4_xs_join(const struct block_parts *parts, void *block) {
    struct block_iq4_xs *b = block;
    memset(b, 0, sizeof *b);
    b->d = f16_from_f32(parts->d);
    for (int g = 0; g < 8; g++) {
        const int s = parts->scale[g] + 32;
        b->scales_low[g / 2] |= (uint8_t)((s & 15) << (g % 2 * 4));
        b->scales_high |= (uint16_t)(s >> 4 << 2 * g);
        for (int l = 0; l < 16; l++)
            b->q[16 * g + l] =
                (uint8_t)(parts->code[32 * g + l] | parts->code[32 * g + l + 16] << 4);
    }
}
