// words_neon.h: a vector `vf` of VW floats and what can be done with it, in NEON of 64-bit ARM.
//
// Included by neon.c, for every such processor, by dotprod.c, for those with dots of bytes (ARMv8.2), and by i8mm.c, for
// those with products of two by two rows of them (ARMv8.6); the ops are the source of kernels.h over these words, as for
// words_avx512.h. Four numbers a vector, 32 vectors. NEON has no masks: the ends of rows go through memory.
#include <arm_neon.h>
#include <string.h>

#define VW 4
#define TILE_GROUPS 4  // rows of a GEMM tile / 3: 12 x 8 values in 24 of the 32 registers
#define TILE_VECTORS 2 // of columns: a whole-number tile (kernels_pairs.h)
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define TILE_PASS 8 // and its rows
#define TILE_SQUARES // it is that of kernels_squares.h
#else
#define TILE_PASS 4
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32_t vu __attribute__((vector_size(16)));

// ---------------------------------------------------------------------------------------------------------------
// Floats.

INLINE uint32x4_t v_first(int64_t n) { // all bits of the lanes below n
    const int32x4_t lane = {0, 1, 2, 3};
    return vcltq_s32(lane, vdupq_n_s32((int)(n > VW ? VW : n)));
}
INLINE vf v_zero(void) { return vdupq_n_f32(0); }
INLINE vf v_set1(float x) { return vdupq_n_f32(x); }
INLINE vf v_load(const float *p) { return vld1q_f32(p); }
INLINE void v_store(float *p, vf x) { vst1q_f32(p, x); }
INLINE vf v_load_n(const float *p, int64_t n) { // the rest 0
    if (n >= VW) return vld1q_f32(p);
    float some[VW] = {0};
    for (int64_t i = 0; i < n; i++) some[i] = p[i];
    return vld1q_f32(some);
}
INLINE void v_store_n(float *p, vf x, int64_t n) {
    if (n >= VW) {
        vst1q_f32(p, x);
        return;
    }
    float some[VW];
    vst1q_f32(some, x);
    for (int64_t i = 0; i < n; i++) p[i] = some[i];
}
INLINE vf v_first_or(vf x, int64_t n, float rest) { // lanes below n (may be negative) from x
    return vbslq_f32(v_first(n < 0 ? 0 : n), x, vdupq_n_f32(rest));
}
INLINE vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
INLINE vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
INLINE vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
INLINE vf v_div(vf a, vf b) { return vdivq_f32(a, b); }
INLINE vf v_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); } // b when either is NaN
INLINE vf v_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
INLINE vf v_sqrt(vf a) { return vsqrtq_f32(a); }
INLINE vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }  // a b + c
INLINE vf v_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); } // c - a b
INLINE vf v_zero_below(vf x, vf key, float limit) {               // x where key >= limit or key is NaN, else 0
    const uint32x4_t below = vcltq_f32(key, vdupq_n_f32(limit));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), below));
}
INLINE vf v_round(vf a) { return vrndnq_f32(a); }
INLINE vf v_exp2_whole(vf n) { // 2^n for whole n in [-126, 127]
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
INLINE vf v_select_eq(vf key, float value, vf yes, vf no) {
    return vbslq_f32(vceqq_f32(key, vdupq_n_f32(value)), yes, no);
}
// sums[0..VW) += x^2 in double
INLINE void v_square_double(double *sums, vf x) {
    const float64x2_t low = vcvt_f64_f32(vget_low_f32(x)), high = vcvt_high_f64_f32(x);
    vst1q_f64(sums, vfmaq_f64(vld1q_f64(sums), low, low));
    vst1q_f64(sums + 2, vfmaq_f64(vld1q_f64(sums + 2), high, high));
}

// Angles are taken and reduced in double: at position 100000 a float angle is off by 0.004.
// Two of pos freq - q pi/2 for the nearest whole q; *quarter = q mod 4 (0..3).
INLINE float32x2_t v_reduce_two(double pos, float64x2_t freq, int32x2_t *quarter) {
    const float64x2_t angle = vmulq_f64(vdupq_n_f64(pos), freq);
    const float64x2_t q = vrndnq_f64(vmulq_f64(angle, vdupq_n_f64(0.63661977236758134308)));
    *quarter = vand_s32(vmovn_s64(vcvtq_s64_f64(q)), vdup_n_s32(3));
    return vcvt_f32_f64(vfmsq_f64(angle, q, vdupq_n_f64(1.57079632679489661923)));
}
INLINE vf v_reduce_angle(double pos, vf freq, vf *quarter) {
    int32x2_t low_quarter, high_quarter;
    const float32x2_t low = v_reduce_two(pos, vcvt_f64_f32(vget_low_f32(freq)), &low_quarter);
    const float32x2_t high = v_reduce_two(pos, vcvt_high_f64_f32(freq), &high_quarter);
    *quarter = vcvtq_f32_s32(vcombine_s32(low_quarter, high_quarter));
    return vcombine_f32(low, high);
}

// ---------------------------------------------------------------------------------------------------------------
// Other number formats.

INLINE vf v_load_f16(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE vf v_load_bf16(const void *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
INLINE uint8x8_t four_bytes(const void *p) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return vreinterpret_u8_u32(vdup_n_u32(word));
}
INLINE vi v_load_bytes(const void *p) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}
INLINE vf v_load_i8(const void *p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p))))));
}
INLINE void v_store_f16(void *p, vf x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); } // to nearest even
INLINE void v_store_bf16(void *p, vf x) { // to nearest even; NaN stays NaN
    const uint32x4_t u = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(0x40));
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet)));
}

// ---------------------------------------------------------------------------------------------------------------
// Words.

INLINE vi v_load_words(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
INLINE void v_store_words(void *p, vi a) { vst1q_u8(p, vreinterpretq_u8_s32(a)); }
INLINE vi v_zero_words(void) { return vdupq_n_s32(0); }
INLINE vi v_set1_words(int32_t x) { return vdupq_n_s32(x); }
INLINE vf v_float(vi a) { return vcvtq_f32_s32(a); }
INLINE vi v_whole(vf a) { return vcvtnq_s32_f32(a); } // to nearest, even among equals
INLINE vi v_and(vi a, int bits) { return vandq_s32(a, vdupq_n_s32(bits)); }
INLINE vi v_xor(vi a, int bits) { return veorq_s32(a, vdupq_n_s32(bits)); }
INLINE vi v_or(vi a, vi b) { return vorrq_s32(a, b); }
INLINE vi v_left(vi a, int n) { return vshlq_s32(a, vdupq_n_s32(n)); }
INLINE vi v_right(vi a, int n) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
INLINE vi v_right_16(vi a, int n) { // halves of words
    return vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16((int16_t)-n)));
}
INLINE vi v_max_words(vi a, vi b) { return vmaxq_s32(a, b); }
INLINE vi v_add_words(vi a, vi b) { return vaddq_s32(a, b); }
INLINE int32_t v_most_word(vi a) { return vmaxvq_s32(a); }
INLINE int32_t v_sum_words(vi a) { return vaddvq_s32(a); }
INLINE void v_store_halves(void *p, vi a) { // the low sixteen bits of every word
    vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(a)));
}
// Entry `code` of the table for every byte.
#define v_table(code, ...)                                                                         \
    vreinterpretq_s32_u8(vqtbl1q_u8((uint8x16_t){__VA_ARGS__}, vreinterpretq_u8_s32(code)))

// Four rows of four words, turned.
INLINE void v_turn(const void *src, ptrdiff_t stride, vi r[4]) {
    const char *at = src;
    const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(v_load_words(at), v_load_words(at + stride)));
    const int64x2_t b = vreinterpretq_s64_s32(vtrn2q_s32(v_load_words(at), v_load_words(at + stride)));
    const char *more = at + 2 * stride;
    const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(v_load_words(more), v_load_words(more + stride)));
    const int64x2_t d = vreinterpretq_s64_s32(vtrn2q_s32(v_load_words(more), v_load_words(more + stride)));
    r[0] = vreinterpretq_s32_s64(vtrn1q_s64(a, c));
    r[1] = vreinterpretq_s32_s64(vtrn1q_s64(b, d));
    r[2] = vreinterpretq_s32_s64(vtrn2q_s64(a, c));
    r[3] = vreinterpretq_s32_s64(vtrn2q_s64(b, d));
}
// r[i] = word i of VW rows, `stride` bytes apart: eight words of each, turned.
INLINE void v_rows(const void *src, ptrdiff_t stride, vi r[8]) {
    v_turn(src, stride, r);
    v_turn((const char *)src + 16, stride, r + 4);
}
// Transposes VW rows of VW floats: `stride` floats apart at src, `to` floats apart at dst.
INLINE void v_transpose(const float *src, ptrdiff_t stride, float *dst, ptrdiff_t to) {
    vi r[4];
    v_turn(src, stride * 4, r);
    for (int i = 0; i < 4; i++) v_store_words(dst + i * to, r[i]);
}

// ---------------------------------------------------------------------------------------------------------------
// Dots of codes, unsigned bytes, with numbers of sixteen bits (kernels_whole.h, kernels_pairs.h), of which the eight terms
// at q are two quads: terms 0, 2, 4, 6 and 1, 3, 5, 7.

#if defined(__ARM_FEATURE_DOTPROD)
// A number is 256 high + low, both signed bytes; a pair of words holds the four high bytes of a quad, then the low ones.
// The instruction wants signed codes: kernels_codes.h turns their top bit where it may be set.
enum { QUADS_TERMS = 8, TILE_PLANES = 2, CODES_SIGNED = 1 };
INLINE void v_quads_store(int32_t *to, const int32_t *q) {
    const int16x8_t x = vcombine_s16(vmovn_s32(vld1q_s32(q)), vmovn_s32(vld1q_s32(q + 4)));
    const int8x8_t high = vshrn_n_s16(vaddq_s16(x, vdupq_n_s16(128)), 8), low = vmovn_s16(x);
    const uint8x16_t quads = {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
    vst1q_u8((void *)to, vqtbl1q_u8(vreinterpretq_u8_s8(vcombine_s8(high, low)), quads));
}
INLINE vi v_pair_dot(vi sum, vi codes, vi x) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(x));
}
INLINE void v_quad_dot(vi *high, vi *low, vi codes, const int32_t *x) {
    *high = v_pair_dot(*high, codes, vdupq_n_s32(x[0]));
    *low = v_pair_dot(*low, codes, vdupq_n_s32(x[1]));
}
INLINE vi v_quad_sum(vi high, vi low) { return vaddq_s32(vshlq_n_s32(high, 8), low); }
#else
// A pair of words holds the first and third number of a quad, then the second and fourth.
enum { QUADS_TERMS = 8, TILE_PLANES = 1, CODES_SIGNED = 0 };
INLINE void v_quads_store(int32_t *to, const int32_t *q) {
    const int16x8_t x = vcombine_s16(vmovn_s32(vld1q_s32(q)), vmovn_s32(vld1q_s32(q + 4)));
    const uint8x16_t quads = {0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15};
    vst1q_u8((void *)to, vqtbl1q_u8(vreinterpretq_u8_s16(x), quads));
}
INLINE vi v_pair_dot(vi sum, vi codes, vi x) { // codes and x: pairs of sixteen bits
    const int16x8_t a = vreinterpretq_s16_s32(codes), b = vreinterpretq_s16_s32(x);
    const vi low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)));
}
INLINE void v_quad_dot(vi *even, vi *odd, vi codes, const int32_t *x) {
    *even = v_pair_dot(*even, v_and(codes, 0x00ff00ff), vdupq_n_s32(x[0]));
    *odd = v_pair_dot(*odd, v_right_16(codes, 8), vdupq_n_s32(x[1]));
}
INLINE vi v_quad_sum(vi even, vi odd) { return vaddq_s32(even, odd); }
#endif
#if defined(TILE_SQUARES)
// Pairs are the eight high bytes, then the eight low ones, each as the quads have them: 0, 2, 4, 6, 1, 3, 5, 7.
INLINE void v_pairs_store(int32_t *to, const int32_t *q) {
    v_quads_store(to, q);
    const vi quads = vld1q_s32(to);
    vst1_s32(to, vget_low_s32(vuzp1q_s32(quads, quads))), vst1_s32(to + 2, vget_low_s32(vuzp2q_s32(quads, quads)));
}
// sum[i][j] += dot of eight bytes, half i of codes and half j of x.
INLINE vi v_square_dot(vi sum, vi codes, vi x) {
    return vmmlaq_s32(sum, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(x));
}
// Two columns by two rows: what belongs to the rows, to the columns; words of two vectors zipped, and floats unzipped.
INLINE vi v_two_words(const int32_t *p) { return vcombine_s32(vld1_s32(p), vld1_s32(p)); }
INLINE vf v_two(const float *p) { return vcombine_f32(vld1_f32(p), vld1_f32(p)); }
INLINE vf v_each_twice(const float *p) {
    const vf two = v_two(p);
    return vzip1q_f32(two, two);
}
INLINE vi v_zip_low(vi a, vi b) { return vzip1q_s32(a, b); }
INLINE vi v_zip_high(vi a, vi b) { return vzip2q_s32(a, b); }
INLINE vf v_even(vf a, vf b) { return vuzp1q_f32(a, b); }
INLINE vf v_odd(vf a, vf b) { return vuzp2q_f32(a, b); }
#else
INLINE void v_pairs_store(int32_t *to, const int32_t *q) { v_quads_store(to, q); }
#endif

// ---------------------------------------------------------------------------------------------------------------
// 32 bytes, as words_bytes.h has them for x86.

typedef struct {
    uint8x16_t half[2];
} vb;
#define EACH_HALF(of_half)                                                                      \
    vb r;                                                                                          \
    for (int h = 0; h < 2; h++) r.half[h] = of_half;                                             \
    return r

INLINE vb b_load_halves(const void *p, const void *q) { return (vb){{vld1q_u8(p), vld1q_u8(q)}}; }
INLINE vb b_load(const void *p) { return b_load_halves(p, (const char *)p + 16); }
INLINE void b_store(void *p, vb a) { vst1q_u8(p, a.half[0]), vst1q_u8((uint8_t *)p + 16, a.half[1]); }
INLINE vb b_set1(int byte) { EACH_HALF(vdupq_n_u8((uint8_t)byte)); }
INLINE vb b_set1_words(int32_t x) { EACH_HALF(vreinterpretq_u8_s32(vdupq_n_s32(x))); }
INLINE vb b_and(vb a, vb b) { EACH_HALF(vandq_u8(a.half[h], b.half[h])); }
INLINE vb b_or(vb a, vb b) { EACH_HALF(vorrq_u8(a.half[h], b.half[h])); }
INLINE vb b_xor(vb a, vb b) { EACH_HALF(veorq_u8(a.half[h], b.half[h])); }
INLINE vb b_left_16(vb a, int n) {
    EACH_HALF(vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a.half[h]), vdupq_n_s16((int16_t)n))));
}
INLINE vb b_right_16(vb a, int n) { return b_left_16(a, -n); }
INLINE vb b_left_32(vb a, int n) {
    EACH_HALF(vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(a.half[h]), vdupq_n_s32(n))));
}
INLINE vb b_right_32(vb a, int n) { return b_left_32(a, -n); }
INLINE vb b_right_64(vb a, int n) {
    EACH_HALF(vreinterpretq_u8_u64(vshlq_u64(vreinterpretq_u64_u8(a.half[h]), vdupq_n_s64(-n))));
}
INLINE uint32_t b_top_bits(vb a) {
    const int8x16_t places = {-7, -6, -5, -4, -3, -2, -1, 0, -7, -6, -5, -4, -3, -2, -1, 0};
    uint32_t bits = 0;
    for (int h = 0; h < 2; h++) {
        const uint8x16_t one = vshlq_u8(vandq_u8(a.half[h], vdupq_n_u8(0x80)), places);
        bits |= ((uint32_t)vaddv_u8(vget_low_u8(one)) | (uint32_t)vaddv_u8(vget_high_u8(one)) << 8) << 16 * h;
    }
    return bits;
}
INLINE vb b_narrow(vb a, vb b) {
    EACH_HALF(vcombine_u8(vmovn_u16(vreinterpretq_u16_u8(a.half[h])), vmovn_u16(vreinterpretq_u16_u8(b.half[h]))));
}
INLINE vb b_even_words(vb a, vb b) {
    EACH_HALF(vreinterpretq_u8_u32(vuzp1q_u32(vreinterpretq_u32_u8(a.half[h]), vreinterpretq_u32_u8(b.half[h]))));
}
INLINE vb b_unzip_8(vb a) {
    const uint8x16_t from = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    EACH_HALF(vqtbl1q_u8(a.half[h], from));
}
#undef EACH_HALF
