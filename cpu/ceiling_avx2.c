// ceiling_avx2.c: what --ceiling (ceiling.c) burns of AVX2: multiply-adds in f32.
//
// Twelve chains of their own, named: a multiply-add takes 4 cycles and two may begin in each, and gcc keeps an array of
// vectors in memory.
#include "cpu/ceiling.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

static bool present(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#define STEP(c) c = _mm256_fmadd_ps(c, factor, term)
static double burn_f32(struct burn_room *room) {
    enum { ROUNDS = 2000 };
    const __m256 factor = _mm256_set1_ps(.5f), term = _mm256_loadu_ps((const float *)(const void *)room->at);
    __m256 a = term, b = _mm256_add_ps(a, a), c = _mm256_add_ps(b, a), d = _mm256_add_ps(c, a), e = _mm256_add_ps(d, a),
           f = _mm256_add_ps(e, a), g = _mm256_add_ps(f, a), h = _mm256_add_ps(g, a), i = _mm256_add_ps(h, a),
           j = _mm256_add_ps(i, a), k = _mm256_add_ps(j, a), l = _mm256_add_ps(k, a);
    for (int r = 0; r < ROUNDS; r++) {
        STEP(a), STEP(b), STEP(c), STEP(d), STEP(e), STEP(f);
        STEP(g), STEP(h), STEP(i), STEP(j), STEP(k), STEP(l);
    }
    const __m256 sum = a + b + c + d + e + f + g + h + i + j + k + l;
    room->sum += (uint64_t)_mm256_cvtss_f32(sum);
    return 2.0 * 8 * 12 * ROUNDS;
}

static const struct burn rows[] = {{"f32 avx2", "GFLOP/s", present, burn_f32}};
struct burns cpu_burns_avx2(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_avx2(void) { return (struct burns){0}; }
#endif
