// matmul.cu: out = scale * x w^T + (accumulate ? out : 0), w of numbers. Block formats have a file of their own.
#include "cuda/chains.cuh"
#include "cuda/wgmma.cuh"

// ---------------------------------------------------------------------------------------------------------------
// Rounding ahead. x always: it is small beside the weights where rows are few, and read again and again where they are many; so
// it comes into the tiles by asynchronous copies, as weights in bf16 do.

enum { ROUND_THREADS = 256 };
template <enum dtype D> __global__ void round_kernel(struct tensor t, bool wide, uint4 *to) {
    const int64_t chunks = ceil_div(t.cols, 8), i = (int64_t)blockIdx.x * ROUND_THREADS + threadIdx.x;
    if (i >= t.rows * chunks) return;
    const int64_t row = i / chunks, chunk = i % chunks;
    to[i] = eight_bf16<D>(eight_read<D>((const char *)row_at(t, row) + chunk * 8 * (D == DTYPE_F32 ? 4 : 2),
                                        (int)(t.cols - 8 * chunk < 8 ? t.cols - 8 * chunk : 8), wide));
}
struct factor product_rounded(const struct tensor &t, int64_t outputs, void *to) {
    const unsigned blocks = (unsigned)ceil_div(t.rows * ceil_div(t.cols, 8), ROUND_THREADS);
    const bool wide = factor_of(t, outputs).wide;
    if (blocks == 0) return (struct factor){(const char *)to, 16, outputs, true};
    if (t.dtype == DTYPE_F32) LAUNCH((round_kernel<DTYPE_F32>), blocks, ROUND_THREADS, 0, t, wide, (uint4 *)to);
    else if (t.dtype == DTYPE_F16) LAUNCH((round_kernel<DTYPE_F16>), blocks, ROUND_THREADS, 0, t, wide, (uint4 *)to);
    else LAUNCH((round_kernel<DTYPE_BF16>), blocks, ROUND_THREADS, 0, t, wide, (uint4 *)to);
    return (struct factor){(const char *)to, product_rounded_bytes(t.cols), outputs, true};
}

// ---------------------------------------------------------------------------------------------------------------
// PRECISION_BF16.

typedef take_bf16<LIES_ALONG> along;
template <class S>
static void start_by_dtype(const struct product_out &out, const struct factor &x, const struct factor &w, enum dtype d, int64_t K) {
    if (d == DTYPE_F32) gemm_start<S, along, take_numbers<DTYPE_F32, LIES_ALONG>>(out, x, w, K);
    else if (d == DTYPE_F16) gemm_start<S, along, take_numbers<DTYPE_F16, LIES_ALONG>>(out, x, w, K);
    else if (!w.wide) gemm_start<S, along, take_numbers<DTYPE_BF16, LIES_ALONG>>(out, x, w, K);
    else gemm_start<S, along, along>(out, x, w, K);
}

// With many rows other weights, too, are rounded once.
static void matmul_on_tensor_cores(const struct matmul_args *a) {
    enum { FEW = gemm_few::ROWS, SOME = gemm_small::ROWS };
    const int64_t n = a->x.rows, K = a->x.cols, M = a->w.rows;
    const struct product_out out = product_out_of(a->out, a->scale, a->accumulate);
    struct factor w = factor_of(a->w, M);
    const bool as_it_is = n <= SOME || (a->w.dtype == DTYPE_BF16 && w.wide);
    const size_t x_bytes = (size_t)n * product_rounded_bytes(K), w_bytes = as_it_is ? 0 : (size_t)M * product_rounded_bytes(K);
    char *room = (char *)cuda_scratch(SLOT_MATMUL, x_bytes + w_bytes);
    const struct factor x = product_rounded(a->x, n, room);
    if (n <= FEW) return start_by_dtype<gemm_few>(out, x, w, a->w.dtype, K);
    if (n <= SOME) return start_by_dtype<gemm_small>(out, x, w, a->w.dtype, K);
    if (!as_it_is) w = product_rounded(a->w, M, room + x_bytes);
    switch (gemm_size_for(n, M)) {
    case GEMM_SMALL: gemm_start<gemm_small, along, along>(out, x, w, K); break;
    case GEMM_LARGE: gemm_start<gemm_large, along, along>(out, x, w, K); break;
    case GEMM_HUGE: gemm_start<gemm_huge, along, along>(out, x, w, K); break;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// PRECISION_F32. Up to 32 rows are read as few: twice 16, of which the second finds the weights in L2.

template <enum dtype D>
static void start_chains(const struct product_out &out, const struct factor &x, const struct factor &w, int64_t K) {
    if (out.rows == 1) product_start<few<D, 1, 1>>(out, x, w, K);
    else if (out.rows == 2) product_start<few<D, 2, 1>>(out, x, w, K);
    else if (out.rows <= 4) product_start<few<D, 4, 1>>(out, x, w, K);
    else if (out.rows <= 8) product_start<few<D, 8, FEW_R<D>>>(out, x, w, K);
    else if (out.rows <= 32) product_start<few<D, 16, FEW_R<D>>>(out, x, w, K);
    else chains_start<own_numbers<DTYPE_F32, false>, own_numbers<D, false>>(out, x, w, K);
}

static void cuda_matmul(const struct matmul_args *a) {
    if (dtype_row(a->w.dtype)->block_weights > 1) {
        cuda_matmul_blocks(a);
        return;
    }
    assert(is_f32(a->out) && is_f32(a->x) && is_rows(a->w) && a->w.dtype != DTYPE_I32);
    assert(a->out.rows == a->x.rows && a->out.cols == a->w.rows && a->x.cols == a->w.cols);
    if (a->x.rows == 0) return;
    if (a->precision == PRECISION_BF16 && cuda_has_bf16()) matmul_on_tensor_cores(a);
    else {
        const struct product_out out = product_out_of(a->out, a->scale, a->accumulate);
        const struct factor x = factor_of(a->x, a->x.rows), w = factor_of(a->w, a->w.rows);
        if (a->w.dtype == DTYPE_F32) start_chains<DTYPE_F32>(out, x, w, a->x.cols);
        else if (a->w.dtype == DTYPE_F16) start_chains<DTYPE_F16>(out, x, w, a->x.cols);
        else start_chains<DTYPE_BF16>(out, x, w, a->x.cols);
    }
}

void cuda_fill_matmul(struct backend *b) {
    b->matmul = cuda_matmul;
    cuda_fill_matmul_back(b);
    cuda_fill_matmul_experts(b);
}
