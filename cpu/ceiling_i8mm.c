// ceiling_i8mm.c: what --ceiling (ceiling.c) burns of ARM's products of two by two rows of bytes.
//
// Sixteen chains of their own, as in ceiling_neon.c. One instruction is 32 products of bytes and as many sums.
#include "cpu/ceiling.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8) && defined(__linux__)
#include <arm_neon.h>
#include <sys/auxv.h>

static bool present(void) {
    enum { I8MM = 13 };
    return getauxval(AT_HWCAP2) >> I8MM & 1;
}

static double burn_int8(struct burn_room *room) {
    enum { ROUNDS = 2000, CHAINS = 16 };
    const int8x16_t left = vld1q_s8((const int8_t *)room->at), right = vld1q_s8((const int8_t *)room->at + 16);
    int32x4_t chain[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) chain[i] = vdupq_n_s32(i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) chain[i] = vmmlaq_s32(chain[i], left, right);
    int32x4_t sum = vdupq_n_s32(0);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sum = veorq_s32(sum, chain[i]);
    room->sum += (uint64_t)(uint32_t)vgetq_lane_s32(sum, 0);
    return 2.0 * 32 * CHAINS * ROUNDS;
}

static const struct burn rows[] = {{"int8 i8mm", "GOP/s", present, burn_int8}};
struct burns cpu_burns_i8mm(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_i8mm(void) { return (struct burns){0}; }
#endif
