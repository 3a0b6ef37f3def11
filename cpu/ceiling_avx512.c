// ceiling_avx512.c: what --ceiling (ceiling.c) burns of AVX-512: multiply-adds in f32 and VNNI's dots of bytes.
//
// Twelve chains of their own, named, as in ceiling_avx2.c. One VNNI instruction is 64 products of bytes and as many sums.
#include "cpu/ceiling.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>

static bool present_f32(void) { return __builtin_cpu_supports("avx512f"); }
static bool present_vnni(void) { return present_f32() && __builtin_cpu_supports("avx512vnni"); }

#define STEP(c) c = _mm512_fmadd_ps(c, factor, term)
static double burn_f32(struct burn_room *room) {
    enum { ROUNDS = 2000 };
    const __m512 factor = _mm512_set1_ps(.5f), term = _mm512_loadu_ps(room->at);
    __m512 a = term, b = _mm512_add_ps(a, a), c = _mm512_add_ps(b, a), d = _mm512_add_ps(c, a), e = _mm512_add_ps(d, a),
           f = _mm512_add_ps(e, a), g = _mm512_add_ps(f, a), h = _mm512_add_ps(g, a), i = _mm512_add_ps(h, a),
           j = _mm512_add_ps(i, a), k = _mm512_add_ps(j, a), l = _mm512_add_ps(k, a);
    for (int r = 0; r < ROUNDS; r++) {
        STEP(a), STEP(b), STEP(c), STEP(d), STEP(e), STEP(f);
        STEP(g), STEP(h), STEP(i), STEP(j), STEP(k), STEP(l);
    }
    room->sum += (uint64_t)_mm512_reduce_add_ps(a + b + c + d + e + f + g + h + i + j + k + l);
    return 2.0 * 16 * 12 * ROUNDS;
}

#undef STEP
#define STEP(c) c = _mm512_dpbusd_epi32(c, left, right)
static double burn_vnni(struct burn_room *room) {
    enum { ROUNDS = 2000 };
    const __m512i left = _mm512_loadu_si512(room->at), right = _mm512_loadu_si512(room->at + 64);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i a = left, b = _mm512_add_epi32(a, one), c = _mm512_add_epi32(b, one), d = _mm512_add_epi32(c, one),
            e = _mm512_add_epi32(d, one), f = _mm512_add_epi32(e, one), g = _mm512_add_epi32(f, one),
            h = _mm512_add_epi32(g, one), i = _mm512_add_epi32(h, one), j = _mm512_add_epi32(i, one),
            k = _mm512_add_epi32(j, one), l = _mm512_add_epi32(k, one);
    for (int r = 0; r < ROUNDS; r++) {
        STEP(a), STEP(b), STEP(c), STEP(d), STEP(e), STEP(f);
        STEP(g), STEP(h), STEP(i), STEP(j), STEP(k), STEP(l);
    }
    const __m512i odd = a ^ b ^ c ^ d ^ e ^ f, even = g ^ h ^ i ^ j ^ k ^ l;
    room->sum += (uint64_t)(uint32_t)_mm512_reduce_add_epi32(odd ^ even);
    return 2.0 * 64 * 12 * ROUNDS;
}

static const struct burn rows[] = {
    {"f32 avx512", "GFLOP/s", present_f32, burn_f32},
    {"int8 vnni", "GOP/s", present_vnni, burn_vnni},
};
struct burns cpu_burns_avx512(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_avx512(void) { return (struct burns){0}; }
#endif
