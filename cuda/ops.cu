// ops.cu: ops that work on rows as they come: a block of threads for each row, or a thread for each number.
#include "cuda/cuda.cuh"

enum { THREADS = 256 };
static unsigned blocks_for(int64_t items) { return (unsigned)ceil_div(items, THREADS); }

// ---------------------------------------------------------------------------------------------------------------
// out = a + scale * b

__global__ void add_kernel(struct add_args a) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.out.rows * a.out.cols) return;
    const int64_t row = i / a.out.cols, c = i % a.out.cols;
    const float part = one_if_zero(a.scale) * row_f32(a.b, row)[c];
    row_f32(a.out, row)[c] = a.a.data ? row_f32(a.a, row)[c] + part : part;
}
static void cuda_add(const struct add_args *a) {
    assert(is_f32(a->out) && is_f32(a->b) && same_shape(a->out, a->b));
    const int64_t numbers = a->out.rows * a->out.cols;
    if (numbers > 0) LAUNCH((add_kernel), blocks_for(numbers), THREADS, 0, *a);
}

// ---------------------------------------------------------------------------------------------------------------
// out = x / sqrt(mean(x^2) + eps) * weight

__global__ void rmsnorm_kernel(struct rmsnorm_args a) {
    SHARED(double, room, WARP);
    const float *x = row_f32(a.x, blockIdx.x), *w = row_f32(a.weight, 0);
    float *out = row_f32(a.out, blockIdx.x);
    double sum = 0;
    for (int64_t c = threadIdx.x; c < a.x.cols; c += THREADS) sum += (double)x[c] * x[c];
    sum = block_sum(sum, room);
    const float r = (float)(1 / sqrt(sum / (double)a.x.cols + a.eps));
    for (int64_t c = threadIdx.x; c < a.x.cols; c += THREADS) out[c] = x[c] * r * w[c];
}
static void cuda_rmsnorm(const struct rmsnorm_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && same_shape(a->out, a->x) && is_f32(a->weight) && a->weight.cols == a->x.cols);
    if (a->x.rows) LAUNCH((rmsnorm_kernel), a->x.rows, THREADS, 0, *a);
}

void cuda_fill_ops(struct backend *b) {
    b->add = cuda_add;
    b->rmsnorm = cuda_rmsnorm;
}
