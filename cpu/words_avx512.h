// words_avx512.h: a vector `vf` of VW floats and what can be done with it, in AVX-512 (F, BW, DQ, VL, VNNI) with FMA and F16C.
//
// Included by the files that are compiled for such processors: avx512.c, whose ops are the source of kernels.h over
// these words, and amx.c. avx2.c has its own words of the same names. "Bodies in a header" is the accepted exception to
// the style sheet: the same lines are compiled once per instruction set, and so cannot drift apart.
#include <cpuid.h>
#include <immintrin.h>

#define VW 16
#define INLINE static inline __attribute__((always_inline))

typedef __m512 vf;
typedef __m512i vi;
typedef uint32_t vu __attribute__((vector_size(64)));
#include "cpu/words_bytes.h"

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
INLINE vi v_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi v_and(vi a, int bits) { return _mm512_and_si512(a, _mm512_set1_epi32(bits)); }
INLINE vi v_xor(vi a, int bits) { return _mm512_xor_si512(a, _mm512_set1_epi32(bits)); }
INLINE vi v_left(vi a, int n) { return (vi)((vu)a << n); }
INLINE vi v_right(vi a, int n) { return (vi)((vu)a >> n); }
INLINE vi v_right_16(vi a, int n) { return _mm512_srli_epi16(a, (unsigned)n); } // halves of words
INLINE vi v_zero_words(void) { return _mm512_setzero_si512(); }
INLINE vi v_set1_words(int32_t x) { return _mm512_set1_epi32(x); }
INLINE void v_store_words(void *p, vi a) { _mm512_storeu_si512(p, a); }
INLINE vi v_max_words(vi a, vi b) { return _mm512_max_epi32(a, b); }
INLINE vi v_add_words(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE int32_t v_most_word(vi a) { return _mm512_reduce_max_epi32(a); }
INLINE int32_t v_sum_words(vi a) { return _mm512_reduce_add_epi32(a); }
INLINE vi v_whole(vf a) { return _mm512_cvtps_epi32(a); } // to nearest, even among equals
INLINE __m128i bytes_16(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                        int l, int m, int n, int o, int p) {
    return _mm_setr_epi8((char)a, (char)b, (char)c, (char)d, (char)e, (char)f, (char)g, (char)h,
                         (char)i, (char)j, (char)k, (char)l, (char)m, (char)n, (char)o, (char)p);
}
// Entry `code` of the table for every byte.
#define v_table(code, ...)                                                                         \
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes_16(__VA_ARGS__)), code)
// Quads of kernels_whole.h: four codes, unsigned bytes, times four numbers of sixteen bits. A number
// is 256 high + low, both signed bytes; a pair of words holds the high bytes and the low ones.
enum { QUADS_TERMS = 16, TILE_PLANES = 1, CODES_SIGNED = 0 };
INLINE void v_quads_store(int32_t *to, const int32_t *q) { // 4 quads of the 16 terms
    const vi x = v_load_words(q);
    const vi high = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8);
    const vi low = _mm512_sub_epi32(x, _mm512_slli_epi32(high, 8));
    const __m128i quads = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    const __m128i h = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(high), quads);
    const __m128i l = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(low), quads);
    _mm_storeu_si128((void *)to, _mm_unpacklo_epi32(h, l));
    _mm_storeu_si128((void *)(to + 4), _mm_unpackhi_epi32(h, l));
}
// Pairs of kernels_pairs.h: first and third number of a quad, sixteen bits each, then second and fourth.
INLINE void v_pairs_store(int32_t *to, const int32_t *q) {
    const __m256i quads = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15));
    _mm256_storeu_si256((void *)to, _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(v_load_words(q)), quads));
}
INLINE vi v_pair_dot(vi sum, vi codes, vi x) { return _mm512_dpwssd_epi32(sum, codes, x); }
INLINE void v_quad_dot(vi *high, vi *low, vi codes, const int32_t *x) {
    *high = _mm512_dpbusd_epi32(*high, codes, _mm512_set1_epi32(x[0]));
    *low = _mm512_dpbusd_epi32(*low, codes, _mm512_set1_epi32(x[1]));
}
INLINE vi v_quad_sum(vi high, vi low) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
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

// r[i] = word i of VW rows, `stride` bytes apart: eight words of each, turned.
INLINE void v_rows(const void *src, ptrdiff_t stride, vi r[8]) {
    __m512 s[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { // rows i and i + 8 side by side: an 8 x 8 in each 256 bits
        const char *at = (const char *)src + i * stride;
        const float *p = (const void *)at, *q = (const void *)(at + 8 * stride);
        s[i] =
            _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(q), 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_ps(s[i], s[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(s[i], s[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        s[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        s[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        s[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        s[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    // s[i] now holds column i in lanes of rows 0-3, column i + 4 in the odd 128 bits; s[i + 4]
    // rows 4-7.
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                  odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512i a = _mm512_castps_si512(s[i]), b = _mm512_castps_si512(s[i + 4]);
        r[i] = _mm512_permutex2var_epi64(a, even, b);
        r[i + 4] = _mm512_permutex2var_epi64(a, odd, b);
    }
}
// Transposes VW rows of VW floats: `stride` floats apart at src, `to` floats apart at dst.
INLINE void v_transpose(const float *src, ptrdiff_t stride, float *dst, ptrdiff_t to) {
#pragma GCC unroll 2
    for (int h = 0; h < 16; h += 8) {
        vi r[8];
        v_rows(src + h, stride * 4, r);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) v_store_words(dst + (h + i) * to, r[i]);
    }
}
INLINE void v_store_halves(void *p, vi a) { // the low sixteen bits of every word
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(a));
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
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") && kernels_f16c();
}
