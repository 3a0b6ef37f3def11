// ceiling_bytes.h: what --ceiling burns of one ARM instruction that multiplies bytes: BYTES_DO(sums, left, right), with
// BYTES_PRODUCTS products and as many sums. Part of ceiling_dotprod.c and ceiling_i8mm.c.
//
// Sixteen chains of their own, as in ceiling_neon.c.
#include <arm_neon.h>
#include <sys/auxv.h>

static double burn_int8(struct burn_room *room) {
    enum { ROUNDS = 2000, CHAINS = 16 };
    const int8x16_t left = vld1q_s8((const int8_t *)room->at), right = vld1q_s8((const int8_t *)room->at + 16);
    int32x4_t chain[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) chain[i] = vdupq_n_s32(i);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) chain[i] = BYTES_DO(chain[i], left, right);
    int32x4_t sum = vdupq_n_s32(0);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sum = veorq_s32(sum, chain[i]);
    room->sum += (uint64_t)(uint32_t)vgetq_lane_s32(sum, 0);
    return 2.0 * BYTES_PRODUCTS * CHAINS * ROUNDS;
}
