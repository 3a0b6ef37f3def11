// few_numbers.cu: what branches.cu asks of weights of numbers where rows are few (chains.cuh): products of one x with several
// weights in one launch, and a gated unit, whose two products end in the activation.
//
// A multiprocessor has up to four blocks of threads, each with two stages of 16 KB of the weights on their way (N = 1; 128 KB in
// all, 25 are needed): q, k and v of an 8B model are 384 blocks of 16 outputs for 528 places, all there at once, where k alone
// is 64 and leaves half of the machine without work.
#include "cuda/branches.cuh"
#include "cuda/chains.cuh"
#include "cuda/gate.cuh"

// ---------------------------------------------------------------------------------------------------------------
// Several weights.

struct few_weights {
    struct { struct factor w; struct product_out out; int first; } of[PROJECT_MOST]; // first: its first tile
    int count;
};
template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS) few_weights_kernel(const __grid_constant__ struct few_weights list, struct factor x, int64_t K) {
    SHARED_REST(char, room);
    struct factor w = list.of[0].w;
    struct product_out out = list.of[0].out;
    int number = (int)blockIdx.x, first = 0;
    UNROLL
    for (int j = 1; j < PROJECT_MOST; j++)
        if (j < list.count && number >= list.of[j].first) w = list.of[j].w, out = list.of[j].out, first = list.of[j].first;
    const struct tile_place at = tile_number(number - first, out.rows, out.cols, E::ROWS, E::COLS);
    typename E::sums sums;
    E::zero(sums);
    E::add(sums, room, x, at.row, w, at.col, 0, K);
    E::put(sums, out, at.row, at.col);
}
template <class E> static void few_weights_start(struct few_weights *list, const struct factor &x, int64_t K) {
    int tiles = 0;
    for (int j = 0; j < list->count; j++) {
        const struct product_out *out = &list->of[j].out;
        list->of[j].first = tiles, tiles += (int)(ceil_div(out->rows, E::ROWS) * ceil_div(out->cols, E::COLS));
    }
    LAUNCH((few_weights_kernel<E>), tiles, E::THREADS, E::BYTES, *list, x, K);
}
template <enum dtype D> static void few_weights_by_rows(struct few_weights *list, const struct factor &x, int64_t K) {
    if (x.rows == 1) few_weights_start<few<D, 1, 1>>(list, x, K);
    else if (x.rows == 2) few_weights_start<few<D, 2, 1>>(list, x, K);
    else if (x.rows <= 4) few_weights_start<few<D, 4, 1>>(list, x, K);
    else if (x.rows <= 8) few_weights_start<few<D, 8, FEW_R<D>>>(list, x, K);
    else few_weights_start<few<D, 16, FEW_R<D>>>(list, x, K);
}
void cuda_few_products(const struct matmul_args *a, int count) {
    struct few_weights list = {};
    list.count = count;
    for (int j = 0; j < count; j++) list.of[j].w = factor_of(a[j].w, a[j].w.rows), list.of[j].out = product_out_of(a[j].out, a[j].scale, a[j].accumulate);
    const struct factor x = factor_of(a->x, a->x.rows);
    if (a->w.dtype == DTYPE_F32) few_weights_by_rows<DTYPE_F32>(&list, x, a->x.cols);
    else if (a->w.dtype == DTYPE_F16) few_weights_by_rows<DTYPE_F16>(&list, x, a->x.cols);
    else few_weights_by_rows<DTYPE_BF16>(&list, x, a->x.cols);
}

// ---------------------------------------------------------------------------------------------------------------
// A gated unit. To its engine gate and up are one weight of twice the rows, which alternate. A thread of it reads lines of the one
// or of the other only, as it goes on by an even number of lines; so does it see a weight with rows half as far apart.

template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS) few_gated_kernel(struct few_gated a, struct factor x, struct factor w, const char *up, int64_t K) {
    SHARED_REST(char, room);
    enum { LINE = (int)E::LANES * (int)E::CHUNKS, R = (int)E::COLS / 16, N = E::ROWS };
    static_assert(E::THREADS / LINE % 2 == 0, "a thread brings lines of one weight");
    const struct tile_place at = tile_number(blockIdx.x, a.out.rows, 2 * a.out.cols, E::ROWS, E::COLS);
    w.rows *= 2, w.row_bytes /= 2;
    if ((int)threadIdx.x / LINE % 2) w.data = up - w.row_bytes;
    typename E::sums sums;
    E::zero(sums);
    E::add(sums, room, x, at.row, w, at.col, 0, K);
    // Group g of eight lanes has lines g R and behind: with R = 1 a gate or the up of its neighbour, with R = 2 both.
    const int lane = (int)threadIdx.x % E::LANES, first = E::first_col();
    const int64_t col = at.col / 2 + first / 2;
    const float bias = a.bias && col < a.out.cols ? a.bias[col] : 0;
    UNROLL
    for (int i = 0; i < N; i++) {
        float gate = sums.at[0][i], up_sum = sums.at[R - 1][i];
        if (R == 1) up_sum = __shfl_xor_sync(0xffffffffu, gate, (int)E::LANES);
        if (i % E::LANES != lane || (R == 1 && first % 2)) continue;
        if (a.bias) up_sum = __fadd_rn(up_sum, bias);
        product_put(a.out, at.row + i, col, gated(a.kind, gate, up_sum));
    }
}
template <class E> static void few_gated_start(const struct few_gated &a, const struct factor &x, const struct factor &gate, const struct factor &up, int64_t K) {
    struct factor w = gate;
    w.wide = gate.wide && up.wide;
    LAUNCH((few_gated_kernel<E>), ceil_div(a.out.rows, E::ROWS) * ceil_div(2 * a.out.cols, E::COLS), E::THREADS, E::BYTES, a, x, w, up.data, K);
}
template <enum dtype D>
static void few_gated_by_rows(const struct few_gated &a, const struct factor &x, const struct factor &gate, const struct factor &up, int64_t K) {
    if (x.rows == 1) few_gated_start<few<D, 1, 1>>(a, x, gate, up, K);
    else if (x.rows == 2) few_gated_start<few<D, 2, 1>>(a, x, gate, up, K);
    else if (x.rows <= 4) few_gated_start<few<D, 4, 1>>(a, x, gate, up, K);
    else if (x.rows <= 8) few_gated_start<few<D, 8, FEW_R<D>>>(a, x, gate, up, K);
    else few_gated_start<few<D, 16, FEW_R<D>>>(a, x, gate, up, K);
}
void cuda_few_gated(const struct few_gated *a, const struct tensor &x, const struct tensor &gate, const struct tensor &up) {
    assert(gate.dtype == up.dtype && gate.row_bytes == up.row_bytes && same_shape(gate, up));
    const struct factor from = factor_of(x, x.rows), g = factor_of(gate, gate.rows), u = factor_of(up, up.rows);
    if (up.dtype == DTYPE_F32) few_gated_by_rows<DTYPE_F32>(*a, from, g, u, x.cols);
    else if (up.dtype == DTYPE_F16) few_gated_by_rows<DTYPE_F16>(*a, from, g, u, x.cols);
    else few_gated_by_rows<DTYPE_BF16>(*a, from, g, u, x.cols);
}
