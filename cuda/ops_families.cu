// ops_families.cu: ops that only some families of models need, as cpu/ops_families.c has them: LayerNorm and learned biases
// (GPT-2), capped and held numbers (Gemma 2, gpt-oss). The ways to go over rows are those of rows.cuh.
#include "cuda/exp.cuh"
#include "cuda/rows.cuh"

// ---------------------------------------------------------------------------------------------------------------
// LayerNorm. Its sums are in double as they stand alone; the mean is taken off in two parts of f32, which loses nothing of x near
// it, because doubles cost much on GPUs that are not made for them.

struct mean { float large, small; };
static __device__ __forceinline__ float apart(float x, struct mean m) { return (x - m.large) - m.small; }

template <int WARPS> __global__ void layernorm_kernel(struct layernorm_args a, double share, bool wide) {
    SHARED(double, room, 2 * WARPS);
    const int64_t row = team_number<WARPS>(), C = a.x.cols, first = QUAD * team_thread<WARPS>(), step = QUAD * WARPS * WARP;
    if (row >= a.x.rows) return; // a whole warp, where a team is one
    const float *x = row_f32(a.x, row), *w = (const float *)a.weight.data, *bias = (const float *)a.bias.data;
    float *out = row_f32(a.out, row);
    double sum = 0, squares = 0;
    struct quad q[4];
    for (int64_t c = first; c < C; c += 4 * step) {
        quads_load<4>(q, x, c, step, C, wide);
        for (int k = 0; k < 4 * QUAD; k++) sum += (double)q[k / QUAD].v[k % QUAD];
    }
    sum = team_sum<WARPS>(sum, room) * share;
    const struct mean mean = {(float)sum, (float)(sum - (double)(float)sum)};
    for (int64_t c = first; c < C; c += 4 * step) {
        quads_load<4>(q, x, c, step, C, wide);
        for (int n = 0; n < 4; n++) {
            for (int j = 0; j < QUAD; j++) q[n].v[j] = c + n * step + j < C ? apart(q[n].v[j], mean) : 0;
            squares += (double)quad_dot(q[n], q[n]);
        }
    }
    squares = team_sum<WARPS>(squares, room + WARPS);
    const float r = __fdiv_rn(1, __fsqrt_rn((float)(squares * share) + a.eps));
    for (int64_t c = first; c < C; c += step) {
        struct quad one = quad_load(x + c, C - c, wide);
        const struct quad v = w ? quad_load(w + c, C - c, wide) : quad_of(1);
        const struct quad b = bias ? quad_load(bias + c, C - c, wide) : quad_of(0);
        for (int j = 0; j < QUAD; j++) one.v[j] = fmaf(apart(one.v[j], mean) * r, v.v[j], b.v[j]);
        quad_store(out + c, one, C - c, wide);
    }
}
static void cuda_layernorm(const struct layernorm_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && same_shape(a->out, a->x));
    assert(!tensor_present(&a->weight) || (is_f32(a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols));
    assert(!tensor_present(&a->bias) || (is_f32(a->bias) && a->bias.rows == 1 && a->bias.cols == a->x.cols));
    const bool wide = by_sixteen(a->out) && by_sixteen(a->x) && by_sixteen(a->weight) && by_sixteen(a->bias) && a->x.cols % QUAD == 0;
    if (a->x.rows > 0) LAUNCH_TEAMS(layernorm_kernel, a->x.cols, a->x.rows, 0, *a, 1 / (double)a->x.cols, wide);
}

// ---------------------------------------------------------------------------------------------------------------
// Number by number, in place. Comparisons let a NaN stay.

__global__ void bias_kernel(struct bias_args a, bool wide) {
    const int64_t c = quad_column(), left = a.x.cols - c;
    const float scale = one_if_zero(a.scale);
    if (left <= 0) return;
    const struct quad bias = quad_load(row_f32(a.bias, 0) + c, left, wide);
    for (int64_t row = quad_row(); row < a.x.rows; row += quad_rows()) {
        struct quad x = quad_load(row_f32(a.x, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) x.v[j] = fmaf(scale, bias.v[j], x.v[j]);
        quad_store(row_f32(a.x, row) + c, x, left, wide);
    }
}
static void cuda_bias(const struct bias_args *a) {
    assert(is_f32(a->x) && is_f32(a->bias) && a->bias.rows == 1 && a->bias.cols == a->x.cols);
    if (a->x.rows * a->x.cols > 0) LAUNCH_QUADS((bias_kernel), a->x, *a, by_sixteen(a->x) && by_sixteen(a->bias));
}

__global__ void softcap_kernel(struct softcap_args a, bool wide) {
    const int64_t c = quad_column(), left = a.x.cols - c;
    const float inverse = 1 / a.cap;
    for (int64_t row = quad_row(); row < a.x.rows && left > 0; row += quad_rows()) {
        struct quad x = quad_load(row_f32(a.x, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) x.v[j] = a.cap * tanh_f32(x.v[j] * inverse);
        quad_store(row_f32(a.x, row) + c, x, left, wide);
    }
}
static void cuda_softcap(const struct softcap_args *a) {
    assert(is_f32(a->x) && a->cap > 0);
    struct softcap_args b = *a;
    if (has_no_gaps(b.x)) b.x = as_one_row(b.x);
    if (b.x.rows * b.x.cols > 0) LAUNCH_QUADS((softcap_kernel), b.x, b, by_sixteen(b.x));
}

__global__ void clamp_kernel(struct clamp_args a, bool wide) {
    const int64_t c = quad_column(), left = a.x.cols - c;
    for (int64_t row = quad_row(); row < a.x.rows && left > 0; row += quad_rows()) {
        struct quad x = quad_load(row_f32(a.x, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) x.v[j] = x.v[j] > a.limit ? a.limit : x.v[j] < -a.limit ? -a.limit : x.v[j];
        quad_store(row_f32(a.x, row) + c, x, left, wide);
    }
}
static void cuda_clamp(const struct clamp_args *a) {
    assert(is_f32(a->x) && a->limit > 0);
    struct clamp_args b = *a;
    if (has_no_gaps(b.x)) b.x = as_one_row(b.x);
    if (b.x.rows * b.x.cols > 0) LAUNCH_QUADS((clamp_kernel), b.x, b, by_sixteen(b.x));
}

void cuda_fill_families(struct backend *b) {
    b->layernorm = cuda_layernorm;
    b->bias = cuda_bias;
    b->softcap = cuda_softcap;
    b->clamp = cuda_clamp;
}
