// exp.cuh: the exponential and what is made of it, as cpu/kernels_exp.h has it: the same polynomials in the same order.
//
// Every step is one rounded operation that stands here by name (a product that feeds a sum is __fmul_rn, so that no compiler may
// fuse it), so a GPU, the processor in its place and every way to call these give the same bits. About 18 instructions for e^x,
// which a kernel that moves 8 bytes a number has time for.
#ifndef LEHR_CUDA_EXP_CUH
#define LEHR_CUDA_EXP_CUH

#include "cuda/cuda.cuh"

// e^x within 1.1 units in the last place; 0 below -87.3, at most e^88.3; NaN stays NaN.
static __device__ __forceinline__ float exp_f32(float x) {
    const float c = x > 88.3f ? 88.3f : x, magic = 12582912.f; // 1.5 * 2^23: a number added to it is rounded to a whole one
    const float t = __fadd_rn(__fmul_rn(c, 1.44269504f), magic), n = __fsub_rn(t, magic);
    const float r = fmaf(-n, -2.12194440e-4f, fmaf(-n, 0.693359375f, c)); // |r| <= ln(2) / 2
    float p = 1.0f / 5040;
    p = fmaf(p, r, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(__fmul_rn(r, r), p, r);
    const float power = __uint_as_float((__float_as_uint(t) + 127u) << 23); // the low bits of t are n: 2^n
    return x < -87.3f ? 0 : __fmul_rn(__fadd_rn(p, 1), power);
}

static __device__ __forceinline__ float sigmoid_f32(float x) { return __fdiv_rn(1, __fadd_rn(1, exp_f32(-x))); }

// s(x) and s(-x) = 1 - s(x), where neither cancels, by one exponential.
struct sigmoids { float here, there; };
static __device__ __forceinline__ struct sigmoids both_sigmoids(float x) {
    const float e = exp_f32(-fabsf(x)), large = __fdiv_rn(1, __fadd_rn(1, e)), small = __fmul_rn(e, large);
    if (x < 0) return (struct sigmoids){small, large};
    return (struct sigmoids){large, small};
}

// Near 0, where 1 - 2 / (1 + e^2x) would cancel, an odd polynomial (Moshier's, 1992).
static __device__ __forceinline__ float tanh_f32(float x) {
    if (fabsf(x) < 0.625f) {
        const float z = __fmul_rn(x, x);
        float p = -5.70498872745e-3f;
        p = fmaf(p, z, 2.06390887954e-2f);
        p = fmaf(p, z, -5.37397155531e-2f);
        p = fmaf(p, z, 1.33314422036e-1f);
        p = fmaf(p, z, -3.33332819422e-1f);
        return fmaf(__fmul_rn(p, z), x, x);
    }
    return __fsub_rn(1, __fdiv_rn(2, __fadd_rn(1, exp_f32(__fadd_rn(x, x)))));
}

// Both gates of gated units are x s(u): SILU with u = x, GELU's tanh form with u = 2 sqrt(2/pi) (x + .044715 x^3).
#define GELU_LINE 1.5957691216f
#define GELU_CUBE 0.044715f
static __device__ __forceinline__ float gelu_inner(float x) {
    return __fmul_rn(__fmul_rn(GELU_LINE, x), fmaf(__fmul_rn(GELU_CUBE, x), x, 1));
}
static __device__ __forceinline__ float silu_f32(float x) { return __fmul_rn(x, sigmoid_f32(x)); }
static __device__ __forceinline__ float gelu_f32(float x) { return __fmul_rn(x, sigmoid_f32(gelu_inner(x))); }

// Sine and cosine of an angle given in double: at position 100000 a float angle is off by 0.004. The whole quarter turns are
// taken off in double, with pi/2 in two parts; polynomials of Moshier's (1992) do the rest in f32.
struct turn { float cos, sin; };
static __device__ __forceinline__ struct turn turn_by(double angle) {
    const double magic = 6755399441055744.0; // 1.5 * 2^52
    const double q = fma(angle, 0.63661977236758134308, magic) - magic;
    const float r = (float)fma(-q, 6.12323399573676603587e-17, fma(-q, 1.57079632679489661923, angle)), z = __fmul_rn(r, r);
    float s = fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = fmaf(__fmul_rn(s, z), r, r);
    float c = fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = fmaf(__fmul_rn(c, z), z, fmaf(-0.5f, z, 1));
    const int quarter = (int)((int64_t)q & 3);
    const float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    return (struct turn){quarter == 1 || quarter == 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}
#endif
