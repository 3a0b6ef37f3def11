// avx2.c: the kernels for processors with AVX2, FMA and F16C.
//
// Only the vector words stand here: a vector `vf` of VW floats and what can be done with it. What
// the ops do with them is in kernels.h, the same source for avx512.c. "Bodies in a header" is the
// accepted exception to the style sheet: the same lines are compiled once per instruction set, and
// so cannot drift apart. On other machines this file compiles to a function that says no.
#include "cpu/cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <cpuid.h>
#include <immintrin.h>

#define VW 8
#define TILE_GROUPS 2 // rows of a GEMM tile / 3: 6 x 16 values in 12 of the 16 registers
#define TILE_PASS 4    // rows of a whole-number tile (kernels_pairs.h)
#define TILE_VECTORS 2 // and its vectors of columns
#define KERNELS_FILL cpu_fill_avx2
#define INLINE static inline __attribute__((always_inline))

typedef __m256 vf;
typedef __m256i vi;
typedef uint32_t vu __attribute__((vector_size(32)));
#include "cpu/words_bytes.h"

INLINE vi v_first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n > 8 ? 8 : n)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf v_load_n(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, v_first(n));
} // the rest 0
INLINE void v_store_n(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, v_first(n), x); }
INLINE vf v_first_or(vf x, int64_t n, float rest) { // lanes below n (may be negative) from x
    return _mm256_blendv_ps(_mm256_set1_ps(rest), x, _mm256_castsi256_ps(v_first(n < 0 ? 0 : n)));
}
INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); } // b when either is NaN
INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   // a b + c
INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } // c - a b
INLINE vf v_zero_below(vf x, vf key, float limit) { // x where key >= limit or key is NaN, else 0
    return _mm256_and_ps(_mm256_cmp_ps(key, _mm256_set1_ps(limit), _CMP_NLT_UQ), x);
}
INLINE vf v_round(vf a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf v_exp2_whole(vf n) { // 2^n for whole n in [-126, 127]
    const vi e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

// Other number formats to float.
INLINE vf v_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE vf v_load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE vf v_load_i8(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
INLINE vi v_load_bytes(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
INLINE vi v_load_words(const void *p) { return _mm256_loadu_si256(p); }
INLINE vf v_float(vi a) { return _mm256_cvtepi32_ps(a); }
INLINE vi v_and(vi a, int bits) { return _mm256_and_si256(a, _mm256_set1_epi32(bits)); }
INLINE vi v_or(vi a, vi b) { return _mm256_or_si256(a, b); }
INLINE vi v_xor(vi a, int bits) { return _mm256_xor_si256(a, _mm256_set1_epi32(bits)); }
INLINE vi v_left(vi a, int n) { return (vi)((vu)a << n); }
INLINE vi v_right(vi a, int n) { return (vi)((vu)a >> n); }
INLINE vi v_right_16(vi a, int n) { return _mm256_srli_epi16(a, n); } // halves of words
INLINE vi v_zero_words(void) { return _mm256_setzero_si256(); }
INLINE vi v_set1_words(int32_t x) { return _mm256_set1_epi32(x); }
INLINE void v_store_words(void *p, vi a) { _mm256_storeu_si256(p, a); }
INLINE vi v_max_words(vi a, vi b) { return _mm256_max_epi32(a, b); }
INLINE vi v_add_words(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE int32_t v_most_word(vi a) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
INLINE int32_t v_sum_words(vi a) {
    __m128i m = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
INLINE vi v_whole(vf a) { return _mm256_cvtps_epi32(a); } // to nearest, even among equals
INLINE __m128i bytes_16(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                        int l, int m, int n, int o, int p) {
    return _mm_setr_epi8((char)a, (char)b, (char)c, (char)d, (char)e, (char)f, (char)g, (char)h,
                         (char)i, (char)j, (char)k, (char)l, (char)m, (char)n, (char)o, (char)p);
}
// Entry `code` of the table for every byte.
#define v_table(code, ...)                                                                         \
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes_16(__VA_ARGS__)), code)
// Quads of kernels_whole.h: four codes, unsigned bytes, times four numbers of sixteen bits. A pair of
// words holds the first and third number, then the second and fourth.
enum { QUADS_TERMS = 8, TILE_PLANES = 1, CODES_SIGNED = 0 };
INLINE void v_pairs_store(int32_t *to, const int32_t *q) { // 2 quads of the 8 terms
    const __m128i sixteen = _mm_packs_epi32(_mm_loadu_si128((const void *)q), _mm_loadu_si128((const void *)(q + 4)));
    const __m128i quads = _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15);
    _mm_storeu_si128((void *)to, _mm_shuffle_epi8(sixteen, quads));
}
INLINE void v_quads_store(int32_t *to, const int32_t *q) { v_pairs_store(to, q); }
// codes and x: pairs of sixteen bits. Without the barrier gcc 12 adds products to each other first, and keeps dozens of
// them in memory: 95 instead of 145 GFLOP/s.
INLINE vi v_pair_dot(vi sum, vi codes, vi x) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, x));
    __asm__("" : "+x"(sum));
    return sum;
}
INLINE void v_quad_dot(vi *even, vi *odd, vi codes, const int32_t *x) {
    const vi first = _mm256_and_si256(codes, _mm256_set1_epi32(0x00ff00ff));
    const vi second = _mm256_srli_epi16(codes, 8);
    *even = _mm256_add_epi32(*even, _mm256_madd_epi16(first, _mm256_set1_epi32(x[0])));
    *odd = _mm256_add_epi32(*odd, _mm256_madd_epi16(second, _mm256_set1_epi32(x[1])));
}
INLINE vi v_quad_sum(vi even, vi odd) { return _mm256_add_epi32(even, odd); }
INLINE void v_store_f16(void *p, vf x) { // round to nearest even
    _mm_storeu_si128(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void v_store_bf16(void *p, vf x) { // round to nearest even; NaN stays NaN
    const vi u = _mm256_castps_si256(x);
    const vi odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    vi r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))),
                             16);
    const vi quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    _mm_storeu_si128(p,
                     _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}

// r[i] = word i of VW rows, `stride` bytes apart: eight words of each, turned.
INLINE void v_rows(const void *src, ptrdiff_t stride, vi r[8]) {
    __m256 s[8], t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4;
         i++) { // rows i and i + 4 side by side, so that the rest stays inside 128 bits
        const char *at = (const char *)src + i * stride;
        const float *p = (const void *)at, *q = (const void *)(at + 4 * stride);
        s[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1);
        s[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4)),
                                        _mm_loadu_ps(q + 4), 1);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 8; h += 4) {
        t[h] = _mm256_unpacklo_ps(s[h], s[h + 1]);
        t[h + 1] = _mm256_unpackhi_ps(s[h], s[h + 1]);
        t[h + 2] = _mm256_unpacklo_ps(s[h + 2], s[h + 3]);
        t[h + 3] = _mm256_unpackhi_ps(s[h + 2], s[h + 3]);
        r[h] = _mm256_castps_si256(_mm256_shuffle_ps(t[h], t[h + 2], 0x44));
        r[h + 1] = _mm256_castps_si256(_mm256_shuffle_ps(t[h], t[h + 2], 0xee));
        r[h + 2] = _mm256_castps_si256(_mm256_shuffle_ps(t[h + 1], t[h + 3], 0x44));
        r[h + 3] = _mm256_castps_si256(_mm256_shuffle_ps(t[h + 1], t[h + 3], 0xee));
    }
}
// Transposes VW rows of VW floats: `stride` floats apart at src, `to` floats apart at dst.
INLINE void v_transpose(const float *src, ptrdiff_t stride, float *dst, ptrdiff_t to) {
    vi r[8];
    v_rows(src, stride * 4, r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) v_store_words(dst + i * to, r[i]);
}
INLINE void v_store_halves(void *p, vi a) { // the low sixteen bits of every word
    const vi low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
    _mm_storeu_si128(
        p, _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

// Angles are taken and reduced in double: at position 100000 a float angle is off by 0.004.
// pos freq - q pi/2 for the nearest whole q; *quarter = q mod 4 (0..3).
INLINE vf v_reduce_angle(double pos, vf freq, vf *quarter) {
    const __m256d p = _mm256_set1_pd(pos),
                  lo = _mm256_mul_pd(p, _mm256_cvtps_pd(_mm256_castps256_ps128(freq)));
    const __m256d hi = _mm256_mul_pd(p, _mm256_cvtps_pd(_mm256_extractf128_ps(freq, 1)));
    const __m256d inv = _mm256_set1_pd(0.63661977236758134308),
                  half_pi = _mm256_set1_pd(1.57079632679489661923);
    enum { nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    const __m256d ql = _mm256_round_pd(_mm256_mul_pd(lo, inv), nearest);
    const __m256d qh = _mm256_round_pd(_mm256_mul_pd(hi, inv), nearest);
    const __m128 rl = _mm256_cvtpd_ps(_mm256_fnmadd_pd(ql, half_pi, lo));
    const __m128 rh = _mm256_cvtpd_ps(_mm256_fnmadd_pd(qh, half_pi, hi));
    const __m128i il = _mm256_cvtpd_epi32(ql), ih = _mm256_cvtpd_epi32(qh);
    const vi q = _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(il), ih, 1),
                                  _mm256_set1_epi32(3));
    *quarter = _mm256_cvtepi32_ps(q);
    return _mm256_insertf128_ps(_mm256_castps128_ps256(rl), rh, 1);
}
INLINE vf v_select_eq(vf key, float value, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(key, _mm256_set1_ps(value), _CMP_EQ_OQ));
}
// sums[0..VW) += x^2 in double
INLINE void v_square_double(double *sums, vf x) {
    const __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                  hi = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    _mm256_storeu_pd(sums, _mm256_fmadd_pd(lo, lo, _mm256_loadu_pd(sums)));
    _mm256_storeu_pd(sums + 4, _mm256_fmadd_pd(hi, hi, _mm256_loadu_pd(sums + 4)));
}

// Not every compiler's __builtin_cpu_supports knows F16C: bit 29 of the third word of leaf 1.
INLINE bool kernels_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
}
INLINE bool kernels_processor(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && kernels_f16c();
}

#include "cpu/kernels.h"

#else
bool cpu_fill_avx2(struct backend *b) {
    (void)b;
    return false;
}
#endif
