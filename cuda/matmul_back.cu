// matmul_back.cu: the gradients of a product with a weight, dx = dout w and dw = dout^T x.
//
// dx sums over the rows of w, dw over the rows of the batch, one sum for each segment: both read factors across, as they lie.
#include "cuda/chains.cuh"
#include "cuda/wgmma.cuh"

typedef take_bf16<LIES_ALONG> along;
typedef take_bf16<LIES_ACROSS> across;
typedef own_numbers<DTYPE_F32, false> own_rows;
typedef own_numbers<DTYPE_F32, true> own_across;

template <class S>
static void dx_few(const struct product_out &out, const struct factor &dout, const struct factor &w, enum dtype d, int64_t M) {
    if (d == DTYPE_F32) gemm_start<S, along, take_numbers<DTYPE_F32, LIES_ACROSS>>(out, dout, w, M);
    else if (!w.wide) gemm_start<S, along, take_numbers<DTYPE_BF16, LIES_ACROSS>>(out, dout, w, M);
    else gemm_start<S, along, across>(out, dout, w, M);
}
static void dx_on_tensor_cores(const struct matmul_dx_args *a) {
    const int64_t n = a->dout.rows, M = a->w.rows, K = a->w.cols;
    const struct product_out out = product_out_of(a->dx, a->scale, a->accumulate);
    struct factor w = factor_of(a->w, K);
    const bool as_it_is = n <= gemm_small::ROWS || (a->w.dtype == DTYPE_BF16 && w.wide);
    const size_t dout_bytes = (size_t)n * product_rounded_bytes(M), w_bytes = as_it_is ? 0 : (size_t)M * product_rounded_bytes(K);
    char *room = (char *)cuda_scratch(SLOT_MATMUL, dout_bytes + w_bytes);
    const struct factor dout = product_rounded(a->dout, n, room);
    if (n <= gemm_few::ROWS) return dx_few<gemm_few>(out, dout, w, a->w.dtype, M);
    if (n <= gemm_small::ROWS) return dx_few<gemm_small>(out, dout, w, a->w.dtype, M);
    if (!as_it_is) w = product_rounded(a->w, K, room + dout_bytes);
    switch (gemm_size_for(n, K)) {
    case GEMM_SMALL: gemm_start<gemm_small, along, across>(out, dout, w, M); break;
    case GEMM_LARGE: gemm_start<gemm_large, along, across>(out, dout, w, M); break;
    case GEMM_HUGE: gemm_start<gemm_huge, along, across>(out, dout, w, M); break;
    }
}

static void cuda_matmul_dx(const struct matmul_dx_args *a) {
    assert(is_f32(a->dx) && is_f32(a->dout) && is_rows(a->w) && (a->w.dtype == DTYPE_F32 || a->w.dtype == DTYPE_BF16));
    assert(a->dx.rows == a->dout.rows && a->dx.cols == a->w.cols && a->dout.cols == a->w.rows);
    if (a->dout.rows == 0) return;
    const struct product_out out = product_out_of(a->dx, a->scale, a->accumulate);
    const struct factor dout = factor_of(a->dout, a->dout.rows), w = factor_of(a->w, a->w.cols);
    if (a->precision == PRECISION_BF16 && cuda_has_bf16()) dx_on_tensor_cores(a);
    else if (a->w.dtype == DTYPE_F32) chains_start<own_rows, own_across>(out, dout, w, a->w.rows);
    else chains_start<own_rows, own_numbers<DTYPE_BF16, true>>(out, dout, w, a->w.rows);
}

static void dw_on_tensor_cores(const struct matmul_dw_args *a, const struct product_out *out) {
    const int64_t n = a->x.rows, M = a->dw.rows, K = a->dw.cols;
    const size_t dout_bytes = (size_t)n * product_rounded_bytes(M), x_bytes = (size_t)n * product_rounded_bytes(K);
    char *room = (char *)cuda_scratch(SLOT_MATMUL, dout_bytes + x_bytes);
    const struct factor dout = product_rounded(a->dout, M, room), x = product_rounded(a->x, K, room + dout_bytes);
    switch (gemm_size_for(M, K)) {
    case GEMM_SMALL: gemm_segments_start<gemm_small, across, across>(*out, dout, x, n, a->segment); break;
    case GEMM_LARGE: gemm_segments_start<gemm_large, across, across>(*out, dout, x, n, a->segment); break;
    case GEMM_HUGE: gemm_segments_start<gemm_huge, across, across>(*out, dout, x, n, a->segment); break;
    }
}

template <int FOURS>
static void dw_chains(const struct product_out &out, const struct factor &dout, const struct factor &x, const struct matmul_dw_args *a) {
    product_segments_start<chains<FOURS, own_across, own_across>>(out, dout, x, a->x.rows, a->segment);
}
static void cuda_matmul_dw(const struct matmul_dw_args *a) {
    assert(is_f32(a->dw) && is_f32(a->dout) && is_f32(a->x));
    assert(a->dout.rows == a->x.rows && a->dw.rows == a->dout.cols && a->dw.cols == a->x.cols);
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    if (a->x.rows == 0) return;
    const struct product_out out = product_out_of(a->dw, a->scale, !a->fresh);
    const struct factor dout = factor_of(a->dout, a->dw.rows), x = factor_of(a->x, a->dw.cols);
    if (a->precision == PRECISION_BF16 && cuda_has_bf16()) dw_on_tensor_cores(a, &out);
    else if (chains_large(a->dw.rows, a->dw.cols)) dw_chains<2>(out, dout, x, a);
    else dw_chains<1>(out, dout, x, a);
}

void cuda_fill_matmul_back(struct backend *b) {
    b->matmul_dx = cuda_matmul_dx;
    b->matmul_dw = cuda_matmul_dw;
}
