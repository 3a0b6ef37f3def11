// avx512.c: the kernels for processors with AVX-512 (F, BW, DQ, VL), FMA and F16C.
//
// Only the vector words stand here: a vector `vf` of VW floats and what can be done with it. What
// the ops do with them is in kernels.h, the same source for avx2.c. "Bodies in a header" is the
// accepted exception to the style sheet: the same lines are compiled once per instruction set, and
// so cannot drift apart. On other machines this file compiles to a function that says no.
#include "cpu/cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) &&                      \
    defined(__AVX512VL__) && defined(__FMA__) && defined(__F16C__)
#include <cpuid.h>
#include <immintrin.h>

#define VW 16
#define TILE_GROUPS 4 // rows of a GEMM tile / 3: 12 x 32 values in 24 of the 32 registers
#define KERNELS_FILL cpu_fill_avx512
#define INLINE static inline __attribute__((always_inline))

typedef __m512 vf;
typedef __m512i vi;

INLINE __mmask16 v_first(int64_t n) { return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1); }
INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf v_load_n(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(v_first(n), p);
} // the rest 0
INLINE void v_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), x); }
INLINE vf v_first_or(vf x, int64_t n, float rest) { // lanes below n (may be negative) from x
    return _mm512_mask_mov_ps(_mm512_set1_ps(rest), v_first(n < 0 ? 0 : n), x);
}
INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } // b when either is NaN
INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   // a b + c
INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } // c - a b
INLINE vf v_zero_below(vf x, vf key, float limit) { // x where key >= limit or key is NaN, else 0
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(key, _mm512_set1_ps(limit), _CMP_NLT_UQ), x);
}
INLINE vf v_round(vf a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf v_exp2_whole(vf n) { // 2^n for whole n in [-126, 127]
    const vi e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}

// Other number formats to float.
INLINE vf v_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf v_load_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE vf v_load_i8(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
INLINE vi v_load_bytes(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INLINE vi v_load_words(const void *p) { return _mm512_loadu_si512(p); }
INLINE vf v_float(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vi v_and(vi a, int bits) { return _mm512_and_si512(a, _mm512_set1_epi32(bits)); }
INLINE vi v_left(vi a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi v_right(vi a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
INLINE vi v_load_nibbles(const void *p) { return _mm512_loadu_si512(p); }
INLINE vi v_next_nibble(vi w) { return _mm512_srli_epi32(w, 4); }
INLINE vf
v_nibble(vi w) { // low nibble of each lane, minus 8: a table look-up reads only the low four bits
    return _mm512_permutexvar_ps(
        w, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
}
// Low nibble of each lane: itself, and as the code of IQ4_NL and of MXFP4.
INLINE vf v_nibble_count(vi w) {
    return _mm512_permutexvar_ps(
        w, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
INLINE vf v_nibble_uneven(vi w) {
    return _mm512_permutexvar_ps(w, _mm512_setr_ps(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13,
                                                   25, 38, 53, 69, 89, 113));
}
INLINE vf v_nibble_e2m1(vi w) {
    return _mm512_permutexvar_ps(
        w, _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
}
// Codes whose bits lie in several words, as floats. A table look-up reads the low four or five bits only, so what
// stands above them may stay; tables of fewer values repeat.
INLINE vi v_bits_of(int mask, vi a, vi b) { // the bits of a where mask is 1, else of b
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(mask), a, b, 0xca);
}
INLINE vf v_code2(vi p) {
    return _mm512_permutexvar_ps(p,
                                 _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3));
}
INLINE vf v_code3(vi p, vi s) { // less 4
    return _mm512_permutexvar_ps(v_bits_of(3, p, s), _mm512_setr_ps(-4, -3, -2, -1, 0, 1, 2, 3, -4,
                                                                    -3, -2, -1, 0, 1, 2, 3));
}
INLINE vf v_code5(vi q, vi s, float first) {
    const vf low = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutex2var_ps(v_add(low, v_set1(first)), v_bits_of(15, q, s),
                                  v_add(low, v_set1(first + 16)));
}
INLINE vf v_code6(vi q, vi p) { // less 32: put below the exponent of 2^23 the code counts in ones
    const vi code = v_bits_of(15, q, p);
    const vi sum = _mm512_ternarylogic_epi32(code, _mm512_set1_epi32(63),
                                             _mm512_set1_epi32(0x4b000000), 0xea);
    return v_sub(_mm512_castsi512_ps(sum), v_set1(0x1p23f + 32));
}
INLINE void v_store_f16(void *p, vf x) { // round to nearest even
    _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void v_store_bf16(void *p, vf x) { // round to nearest even; NaN stays NaN
    const vi u = _mm512_castps_si512(x);
    const vi odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    vi r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
                             16);
    const vi quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(r));
}

// Transposes VW rows of VW floats: `stride` floats apart at src, `to` floats apart at dst.
INLINE void v_transpose(const float *src, ptrdiff_t stride, float *dst, ptrdiff_t to) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 8;
         i++) { // 4 + 4 columns of rows i and i + 8 ... first by 256-bit halves on the load ports
        const float *p = src + (ptrdiff_t)i * stride, *q = src + (ptrdiff_t)(i + 8) * stride;
        r[i] =
            _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(q), 1);
        r[i + 8] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p + 8)),
                                      _mm256_loadu_ps(q + 8), 1);
    }
    // Each half is an 8 x 8 transpose inside 256-bit halves.
#pragma GCC unroll 2
    for (int h = 0; h < 16; h += 8) {
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
            t[h + i] = _mm512_unpacklo_ps(r[h + i], r[h + i + 1]);
            t[h + i + 1] = _mm512_unpackhi_ps(r[h + i], r[h + i + 1]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            r[h + i] = _mm512_shuffle_ps(t[h + i], t[h + i + 2], 0x44);
            r[h + i + 1] = _mm512_shuffle_ps(t[h + i], t[h + i + 2], 0xee);
            r[h + i + 2] = _mm512_shuffle_ps(t[h + i + 1], t[h + i + 3], 0x44);
            r[h + i + 3] = _mm512_shuffle_ps(t[h + i + 1], t[h + i + 3], 0xee);
        }
        // r[i] now holds column i in lanes of rows 0-3, column i + 4 in the odd 128 bits; r[i + 4]
        // rows 4-7.
        const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                      odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m512d a = _mm512_castps_pd(r[h + i]), b = _mm512_castps_pd(r[h + i + 4]);
            _mm512_storeu_ps(dst + (h + i) * to,
                             _mm512_castpd_ps(_mm512_permutex2var_pd(a, even, b)));
            _mm512_storeu_ps(dst + (h + i + 4) * to,
                             _mm512_castpd_ps(_mm512_permutex2var_pd(a, odd, b)));
        }
    }
}

// Angles are taken and reduced in double: at position 100000 a float angle is off by 0.004.
// pos freq - q pi/2 for the nearest whole q; *quarter = q mod 4 (0..3).
INLINE vf v_reduce_angle(double pos, vf freq, vf *quarter) {
    const __m512d p = _mm512_set1_pd(pos),
                  lo = _mm512_mul_pd(p, _mm512_cvtps_pd(_mm512_castps512_ps256(freq)));
    const __m512d hi = _mm512_mul_pd(p, _mm512_cvtps_pd(_mm512_extractf32x8_ps(freq, 1)));
    const __m512d inv = _mm512_set1_pd(0.63661977236758134308),
                  half_pi = _mm512_set1_pd(1.57079632679489661923);
    enum { nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    const __m512d ql = _mm512_roundscale_pd(_mm512_mul_pd(lo, inv), nearest);
    const __m512d qh = _mm512_roundscale_pd(_mm512_mul_pd(hi, inv), nearest);
    const __m256 rl = _mm512_cvtpd_ps(_mm512_fnmadd_pd(ql, half_pi, lo));
    const __m256 rh = _mm512_cvtpd_ps(_mm512_fnmadd_pd(qh, half_pi, hi));
    const __m256i il = _mm512_cvtpd_epi32(ql), ih = _mm512_cvtpd_epi32(qh);
    const vi q = _mm512_and_si512(_mm512_inserti32x8(_mm512_castsi256_si512(il), ih, 1),
                                  _mm512_set1_epi32(3));
    *quarter = _mm512_cvtepi32_ps(q);
    return _mm512_insertf32x8(_mm512_castps256_ps512(rl), rh, 1);
}
INLINE vf v_select_eq(vf key, float value, vf yes, vf no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(key, _mm512_set1_ps(value), _CMP_EQ_OQ), yes);
}
// sums[0..VW) += x^2 in double
INLINE void v_square_double(double *sums, vf x) {
    const __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                  hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    _mm512_storeu_pd(sums, _mm512_fmadd_pd(lo, lo, _mm512_loadu_pd(sums)));
    _mm512_storeu_pd(sums + 8, _mm512_fmadd_pd(hi, hi, _mm512_loadu_pd(sums + 8)));
}

// Not every compiler's __builtin_cpu_supports knows F16C: bit 29 of the third word of leaf 1.
INLINE bool kernels_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
}
INLINE bool kernels_processor(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && kernels_f16c();
}

#include "cpu/kernels.h"

#else
bool cpu_fill_avx512(struct backend *b) {
    (void)b;
    return false;
}
#endif
