// norm.cuh: RMSNorm of a row by a team of warps (rows.cuh): the op, and what makes of the row what a product reads, at once.
//
// Sums of fours are added in double; the root is in f32, and no mean is divided (share is 1 / C): doubles cost much on GPUs that
// are not made for them.
#ifndef LEHR_CUDA_NORM_CUH
#define LEHR_CUDA_NORM_CUH

#include "cuda/rows.cuh"

static __device__ __forceinline__ float inverse_rms(double sum, double share, float eps) {
    return __fdiv_rn(1, __fsqrt_rn((float)(sum * share) + eps));
}
// r of a team's row; room has WARPS numbers.
template <int WARPS>
static __device__ __forceinline__ float row_inverse_rms(const float *x, int64_t C, double share, float eps, bool wide, double *room) {
    const int64_t first = QUAD * team_thread<WARPS>(), step = QUAD * WARPS * WARP;
    double sum = 0;
    for (int64_t c = first; c < C; c += 4 * step) {
        struct quad q[4];
        quads_load<4>(q, x, c, step, C, wide);
        for (int n = 0; n < 4; n++) sum += (double)quad_dot(q[n], q[n]);
    }
    return inverse_rms(team_sum<WARPS>(sum, room), share, eps);
}
static __device__ __forceinline__ struct quad quad_normed(struct quad x, float r, struct quad weight) {
    for (int j = 0; j < QUAD; j++) x.v[j] = x.v[j] * r * weight.v[j];
    return x;
}
// What backend.h asks of these arguments.
static inline bool is_rmsnorm(const struct tensor &x, const struct tensor &weight) {
    return is_f32(x) && is_f32(weight) && weight.rows == 1 && weight.cols == x.cols;
}
#endif
