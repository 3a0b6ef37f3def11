// ceiling_neon.c: what --ceiling (ceiling.c) burns of NEON: multiply-adds in f32.
//
// Sixteen chains of their own: a multiply-add takes 4 cycles, and wide cores begin four in each.
#include "cpu/ceiling.h"

#if defined(__aarch64__)
#include <arm_neon.h>

static bool present(void) { return true; }

static double burn_f32(struct burn_room *room) {
    enum { ROUNDS = 2000, CHAINS = 16 };
    const float32x4_t factor = vdupq_n_f32(.5f), term = vld1q_f32((const float *)(const void *)room->at);
    float32x4_t chain[CHAINS];
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) chain[i] = vmulq_n_f32(term, (float)(i + 1));
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) chain[i] = vfmaq_f32(term, chain[i], factor);
    float sum = 0;
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sum += vgetq_lane_f32(chain[i], 0);
    room->sum += (uint64_t)sum;
    return 2.0 * 4 * CHAINS * ROUNDS;
}

static const struct burn rows[] = {{"f32 neon", "GFLOP/s", present, burn_f32}};
struct burns cpu_burns_neon(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_neon(void) { return (struct burns){0}; }
#endif
