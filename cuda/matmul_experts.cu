// matmul_experts.cu: products of rows grouped by expert, each run of rows with its own matrix, and their gradients.
//
// How many rows an expert has stands on the device, and nobody waits for it: a launch has as many blocks as there could be tiles;
// each finds its expert among the runs' starts (run_number), and those left over leave. The matrices' addresses go with the
// launch, RUN_EXPERTS of them. Engines are those of matmul, so a row has the bits that matmul gives it.
#include "cuda/chains.cuh"
#include "cuda/wgmma.cuh"

typedef take_bf16<LIES_ALONG> along;
typedef take_bf16<LIES_ACROSS> across;
typedef own_numbers<DTYPE_F32, false> own_rows;
typedef own_numbers<DTYPE_F32, true> own_across;

// One launch: RUN_EXPERTS experts at most.
struct launch {
    struct product_out out;
    struct factor rows, cols;
    int64_t terms;
    struct runs runs;
    struct run_weights weights;
};
template <class E>
static void start(const struct launch *l) { product_runs_start<E>(l->out, l->rows, l->cols, l->terms, l->runs, l->weights); }
template <class S, class Rows, class Cols> static void start_rounded(const struct launch *l) {
    gemm_runs_start<S, Rows, Cols>(l->out, l->rows, l->cols, l->terms, l->runs, l->weights);
}

// All matrices lie alike. columns: outputs on their side.
static void launches(struct launch *l, const struct tensor *w, int64_t columns, const int32_t *starts, int64_t experts,
                     int64_t segments, void (*go)(const struct launch *l, enum dtype d)) {
    for (int64_t first = 0; first < experts; first += RUN_EXPERTS) {
        const int64_t count = experts - first < RUN_EXPERTS ? experts - first : (int64_t)RUN_EXPERTS;
        l->cols = factor_of(w[first], columns);
        l->runs = (struct runs){starts + first * segments, count, segments};
        l->weights = (struct run_weights){};
        for (int64_t e = 0; e < count; e++) {
            const struct tensor *one = &w[first + e];
            assert(is_rows(*one) && one->dtype == w->dtype && one->row_bytes == w->row_bytes && same_shape(*one, *w));
            l->weights.data[e] = (const char *)one->data;
            if (!by_sixteen(*one)) l->cols.wide = false;
        }
        go(l, w->dtype);
    }
}
// Rows that an expert has if all have the same.
static int64_t rows_each(const struct launch *l) { return ceil_div(l->out.rows, l->runs.experts); }

// ---------------------------------------------------------------------------------------------------------------
// out = x w^T

template <enum dtype D> static void start_chains(const struct launch *l) {
    if (rows_each(l) <= 1) start<few<D, 1, 1>>(l);
    else if (rows_each(l) <= 4) start<few<D, 4, 1>>(l);
    else if (rows_each(l) <= 32) start<few<D, 16, FEW_R<D>>>(l);
    else start<chains<2, own_rows, own_numbers<D, false>>>(l);
}
static void go_chains(const struct launch *l, enum dtype d) {
    if (d == DTYPE_F32) start_chains<DTYPE_F32>(l);
    else if (d == DTYPE_F16) start_chains<DTYPE_F16>(l);
    else start_chains<DTYPE_BF16>(l);
}
template <class S> static void start_gemm(const struct launch *l, enum dtype d) {
    if (d == DTYPE_F32) start_rounded<S, along, take_numbers<DTYPE_F32, LIES_ALONG>>(l);
    else if (d == DTYPE_F16) start_rounded<S, along, take_numbers<DTYPE_F16, LIES_ALONG>>(l);
    else if (!l->cols.wide) start_rounded<S, along, take_numbers<DTYPE_BF16, LIES_ALONG>>(l);
    else start_rounded<S, along, along>(l);
}
static void go_gemm(const struct launch *l, enum dtype d) {
    if (rows_each(l) <= gemm_few::ROWS) start_gemm<gemm_few>(l, d);
    else if (rows_each(l) <= gemm_small::ROWS || d != DTYPE_BF16 || !l->cols.wide) start_gemm<gemm_small>(l, d);
    else start_rounded<gemm_large, along, along>(l);
}

// The rows of a product, rounded for tensor cores.
static struct factor rounded(const struct tensor &t) {
    return product_rounded(t, t.rows, cuda_scratch(SLOT_MATMUL, (size_t)t.rows * product_rounded_bytes(t.cols)));
}

static void cuda_matmul_experts(const struct matmul_experts_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && a->out.rows == a->x.rows && a->experts > 0 && a->segments > 0);
    assert(a->out.cols == a->w->rows && a->x.cols == a->w->cols && a->w->dtype != DTYPE_I32);
    if (a->x.rows == 0) return;
    if (dtype_row(a->w->dtype)->block_weights > 1) {
        cuda_matmul_experts_blocks(a);
        return;
    }
    struct launch l = {};
    l.out = product_out_of(a->out, 1, false), l.rows = factor_of(a->x, a->x.rows), l.terms = a->x.cols;
    const bool rounds = a->precision == PRECISION_BF16 && cuda_has_bf16();
    if (rounds) l.rows = rounded(a->x);
    launches(&l, a->w, a->w->rows, a->start, a->experts, a->segments, rounds ? go_gemm : go_chains);
}

// ---------------------------------------------------------------------------------------------------------------
// dx = dout w

static void go_dx_chains(const struct launch *l, enum dtype d) {
    const bool large = rows_each(l) > 32;
    if (d == DTYPE_F32 && large) start<chains<2, own_rows, own_across>>(l);
    else if (d == DTYPE_F32) start<chains<1, own_rows, own_across>>(l);
    else if (large) start<chains<2, own_rows, own_numbers<DTYPE_BF16, true>>>(l);
    else start<chains<1, own_rows, own_numbers<DTYPE_BF16, true>>>(l);
}
static void go_dx_gemm(const struct launch *l, enum dtype d) {
    if (d == DTYPE_F32) start_rounded<gemm_small, along, take_numbers<DTYPE_F32, LIES_ACROSS>>(l);
    else if (!l->cols.wide) start_rounded<gemm_small, along, take_numbers<DTYPE_BF16, LIES_ACROSS>>(l);
    else if (rows_each(l) <= gemm_small::ROWS) start_rounded<gemm_small, along, across>(l);
    else start_rounded<gemm_large, along, across>(l);
}

static void cuda_matmul_experts_dx(const struct matmul_experts_dx_args *a) {
    assert(is_f32(a->dx) && is_f32(a->dout) && a->dx.rows == a->dout.rows && a->experts > 0 && a->segments > 0);
    assert(a->dx.cols == a->w->cols && a->dout.cols == a->w->rows && (a->w->dtype == DTYPE_F32 || a->w->dtype == DTYPE_BF16));
    if (a->dx.rows == 0) return;
    struct launch l = {};
    l.out = product_out_of(a->dx, 1, a->accumulate), l.rows = factor_of(a->dout, a->dout.rows), l.terms = a->dout.cols;
    const bool rounds = a->precision == PRECISION_BF16 && cuda_has_bf16();
    if (rounds) l.rows = rounded(a->dout);
    launches(&l, a->w, a->w->cols, a->start, a->experts, a->segments, rounds ? go_dx_gemm : go_dx_chains);
}

// ---------------------------------------------------------------------------------------------------------------
// dw[e] += sum over its rows of dout^T x, by segments

static void cuda_matmul_experts_dw(const struct matmul_experts_dw_args *a) {
    const int64_t n = a->x.rows, M = a->dout.cols, K = a->x.cols;
    assert(is_f32(a->dw) && is_f32(a->dout) && is_f32(a->x) && a->dout.rows == n && a->segments > 0);
    assert(a->dw.rows == a->experts * M && a->dw.cols == K);
    struct product_out out = product_out_of(a->dw, 1, !a->fresh);
    out.rows = M;
    const struct runs runs = {a->start, a->experts, a->segments};
    if (n == 0 && !a->fresh) return;
    if (a->precision == PRECISION_BF16 && cuda_has_bf16()) {
        const size_t dout_bytes = (size_t)n * product_rounded_bytes(M), x_bytes = (size_t)n * product_rounded_bytes(K);
        char *room = (char *)cuda_scratch(SLOT_MATMUL, dout_bytes + x_bytes);
        const struct factor dout = product_rounded(a->dout, M, room), x = product_rounded(a->x, K, room + dout_bytes);
        const bool small = gemm_size_for(a->experts * M, K) == GEMM_SMALL;
        if (small) gemm_runs_segments_start<gemm_small, across, across>(out, dout, x, runs);
        else gemm_runs_segments_start<gemm_large, across, across>(out, dout, x, runs);
        return;
    }
    const struct factor dout = factor_of(a->dout, M), x = factor_of(a->x, K);
    if (chains_large(a->experts * M, K)) product_runs_segments_start<chains<2, own_across, own_across>>(out, dout, x, runs);
    else product_runs_segments_start<chains<1, own_across, own_across>>(out, dout, x, runs);
}

void cuda_fill_matmul_experts(struct backend *b) {
    b->matmul_experts = cuda_matmul_experts;
    b->matmul_experts_dx = cuda_matmul_experts_dx;
    b->matmul_experts_dw = cuda_matmul_experts_dw;
}
