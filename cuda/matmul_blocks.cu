// matmul_blocks.cu: products with weights of block formats.
//
// PRECISION_F32 in whole numbers: x is rounded, 32 columns at a time, to multiples of step = max |x| / 32512, which is 256 high +
// low, two signed bytes. Tensor cores multiply bytes: sixteen rows of the weight by eight columns, the high and the low bytes
// of four rows of x, so that a lane finds both sums of a dot in two neighbouring registers. Dots are exact, in any order and
// by any instruction; what is rounded are sums of groups of 16 or 32 columns,
//
//     sum = fma(d * scale, step * dot, sum) ; sum = fma(-dmin * min, step * (sum of x), sum)
//
// in chains over blocks of 256 columns, each from zero, block sums added in order, whatever kernel it is:
//
//   few    16 or 32 rows of the weights and 4 to 16 of x to a block of threads; its warps take blocks of columns by turns, so that
//          a small weight, too, is read by all multiprocessors; up to three weights with one launch, and gated units. A weight is read once, 16 bytes a lane, into registers and
//          nowhere else. One row of x costs what four do: about 150 instructions of a warp for 2048 weights, 1152 bytes of
//          Q4_K; an H200 reads these in 220 issue slots of a multiprocessor.
//   many   64 x 64 outputs, x in shared memory. Five operations in floats for each output and 32 columns are the limit: 128 a
//          cycle, so some 800 products a cycle and multiprocessor, six times what FMAs in f32 would do.
//
// PRECISION_BF16 is gemm.cuh, which a taker here gives tiles of packed rows; for many rows the weight becomes bf16 first, some MiB
// at a time, which stay in L2. Weights that lie as ROWS are packed into scratch first.
#include "cuda/norm.cuh"
#include "cuda/wide.cuh"

// ---------------------------------------------------------------------------------------------------------------
// x in sixteen bits.

// A thread for four columns.
__global__ void widen_kernel(struct tensor x, bool by_four, struct wide to) {
    const int64_t fours = (int64_t)to.units * (UNIT / 4), at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / fours, c = at % fours * 4;
    struct quad q = quad_of(0);
    if (i < x.rows) q = quad_load(row_f32(x, i) + c, x.cols - c, by_four);
    widen_four(i < x.rows ? to.data + (size_t)i * to.row_bytes : NULL, to.units, c, q.v);
}
// The same behind an rmsnorm, whose team has the row; 32 lanes have a unit.
template <int WARPS> __global__ void norm_widen_kernel(struct rmsnorm_args a, double share, bool wide, struct wide to) {
    SHARED(double, room, WARPS);
    const int64_t row = team_number<WARPS>(), C = a.x.cols, first = QUAD * team_thread<WARPS>(), step = QUAD * WARPS * WARP;
    if (row >= a.x.rows) return; // a whole warp, where a team is one
    const float *x = row_f32(a.x, row), *w = row_f32(a.weight, 0);
    const float r = row_inverse_rms<WARPS>(x, C, share, a.eps, wide, room);
    for (int64_t c = first; c < (int64_t)to.units * UNIT; c += 2 * step) {
        struct quad q[2], v[2];
        quads_load<2>(q, x, c, step, C, wide), quads_load<2>(v, w, c, step, C, wide);
        for (int n = 0; n < 2; n++) {
            if (c + n * step >= (int64_t)to.units * UNIT) continue; // a whole warp
            widen_four(to.data + (size_t)row * to.row_bytes, to.units, c + n * step, quad_normed(q[n], r, v[n]).v);
        }
    }
}

static struct wide wide_of(char *data, int64_t cols) { return (struct wide){data, wide_bytes(cols), coded_units(cols), (int)(cols / CHUNK)}; }
struct wide cuda_widen(const struct tensor &x, const struct tensor &norm, float eps, int64_t more_cols, struct wide *more) {
    const size_t bytes = (size_t)(x.rows + WIDE_ROWS) * wide_bytes(x.cols);
    char *room = (char *)cuda_scratch(SLOT_WHOLE, bytes + (size_t)(x.rows + WIDE_ROWS) * wide_bytes(more_cols));
    const struct wide to = wide_of(room, x.cols);
    if (more) *more = wide_of(room + bytes, more_cols);
    if (!tensor_present(&norm)) {
        LAUNCH((widen_kernel), ceil_div(x.rows * to.units * (UNIT / 4), THREADS), THREADS, 0, x, by_sixteen(x), to);
        return to;
    }
    assert(is_rmsnorm(x, norm));
    const struct rmsnorm_args a = {x, x, norm, eps};
    LAUNCH_TEAMS(norm_widen_kernel, x.cols, x.rows, 0, a, 1 / (double)x.cols, by_sixteen(x) && by_sixteen(norm) && x.cols % QUAD == 0, to);
    return to;
}

// ---------------------------------------------------------------------------------------------------------------
// Few rows.

template <enum dtype D, int MT, int NT>
__global__ void __launch_bounds__(few_shape<MT, NT>::THREADS, 2) few_kernel(const __grid_constant__ struct wide_list list, int at_once, struct wide x) {
    typedef few_shape<MT, NT> S;
    int tile = (int)blockIdx.x, which = 0;
    struct packed w = list.of[0].w;
    UNROLL
    for (int j = 1; j < PROJECT_MOST; j++)
        if (j < list.count && tile >= list.of[j].first) w.data = list.of[j].w.data, w.rows = list.of[j].w.rows, which = j; // as far apart
    const int row = (int)blockIdx.y * S::ROWS;
    tile -= list.of[which].first;
    const float *sums = few_sums<D, MT, NT>(w, w.data, 1, 1, at_once, x, row, (int)list.of[0].out.rows, tile * S::COLS);
    few_put<S>(list.of[which].out, sums, (int)blockIdx.y * S::ROWS, (int)list.of[0].out.rows, tile * S::COLS);
}
template <enum dtype D, int MT, int NT>
__global__ void __launch_bounds__(few_shape<MT, NT>::THREADS, 2) few_runs_kernel(struct product_out out, struct packed w, int at_once, struct wide x, struct runs runs, const __grid_constant__ struct run_weights weights) {
    typedef few_shape<MT, NT> S;
    struct run run;
    if (!run_number(&run, runs, (int)blockIdx.y, S::ROWS)) return;
    w.data = weights.data[run.expert];
    const float *sums = few_sums<D, MT, NT>(w, w.data, 1, 1, at_once, x, (int)run.row, (int)run.end, (int)blockIdx.x * S::COLS);
    few_put<S>(out, sums, (int)run.row, (int)run.end, (int)blockIdx.x * S::COLS);
}

// ---------------------------------------------------------------------------------------------------------------
// Many rows: 2 x 2 warps, 32 rows of the weight by 32 or 16 of x each. The next unit of x is on its way into shared memory; the
// weight's, which blocks with other rows of x read at the same time, comes from L2 while other warps multiply.

enum { MANY_THREADS = 128, MANY_MT = 2, MANY_COLS = 64 };
// Formats with more factors than others leave fewer registers for sums.
template <enum dtype D> struct many_shape {
    enum { NT = D == DTYPE_Q2_K || D == DTYPE_Q4_1 || D == DTYPE_Q5_1 ? 4 : 8, ROWS = 2 * QUAD * NT };
};
template <enum dtype D> static __host__ __device__ __forceinline__ int many_stage(void) {
    return many_shape<D>::ROWS * ((int)UNIT_BYTES + (int)STEP_BYTES + (coded_mins(D) ? sum_bytes(coded_group(D)) : 0));
}

// Unit u of the tile's rows into shared memory: all codes, all steps, all sums.
template <enum dtype D> static __device__ __forceinline__ void many_fetch(char *stage, const struct wide &x, int64_t row, int64_t end, int u) {
    const int MANY = many_shape<D>::ROWS, SUMS = coded_mins(D) ? sum_bytes(coded_group(D)) : 0, CODES = UNIT_BYTES / 16, STEPS = STEP_BYTES / 16, EACH = CODES + STEPS + SUMS / 16;
    for (int i = (int)threadIdx.x; i < MANY * EACH; i += MANY_THREADS) {
        const int r = i / EACH, p = i % EACH;
        const char *from = x.data + (size_t)(row + r < end ? row + r : end - 1) * x.row_bytes;
        char *to = stage;
        if (p < CODES) from += (size_t)u * UNIT_BYTES + p * 16, to += r * UNIT_BYTES + p * 16;
        else if (p == CODES) from += (size_t)x.units * UNIT_BYTES + (size_t)u * STEP_BYTES, to += MANY * UNIT_BYTES + r * STEP_BYTES;
        else {
            from += sums_at(x.units, coded_group(D)) + (size_t)u * SUMS + (p - CODES - STEPS) * 16;
            to += MANY * (UNIT_BYTES + STEP_BYTES) + r * SUMS + (p - CODES - STEPS) * 16;
        }
        cp_async16(to, from, true);
    }
}

template <enum dtype D>
static __device__ __forceinline__ void many_tile(struct product_out out, const struct packed &w, const struct wide &x, int64_t row, int64_t end, int64_t col) {
    enum { MANY = many_shape<D>::ROWS, MANY_NT = many_shape<D>::NT };
    SHARED_REST(char, room);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, stage = many_stage<D>();
    const int sum_row = coded_mins(D) ? sum_bytes(coded_group(D)) : 0, first = warp % 2 * (MANY / 2); // row of x in the tile
    float sums[MANY_MT][MANY_NT][2], total[MANY_MT][MANY_NT][2];
    struct packed_rows<MANY_MT> rows;
    struct unit now[MANY_MT][2];
    struct seen<MANY_NT> at;
    col += warp / 2 * 32;
    packed_at<MANY_MT>(&rows, w, col);
    UNROLL
    for (int n = 0; n < MANY_NT; n++) {
        at.code_at[n] = QUAD * n * UNIT_BYTES, at.step_at[n] = QUAD * n * STEP_BYTES, at.sum_at[n] = QUAD * n * sum_row;
        UNROLL
        for (int m = 0; m < MANY_MT; m++) sums[m][n][0] = sums[m][n][1] = total[m][n][0] = total[m][n][1] = 0;
    }
    many_fetch<D>(room, x, row, end, 0);
    cp_async_commit();
    UNROLL_NOT
    for (int u = 0; u < x.units; u++) {
        const char *here = room + u % 2 * stage;
        packed_load<D, MANY_MT>(now, rows, x.units, u);
        cp_async_wait<0>();
        __syncthreads(); // this unit of x is there, and everybody has done with the one before, whose place the next one takes
        if (u + 1 < x.units) many_fetch<D>(room + (u + 1) % 2 * stage, x, row, end, u + 1);
        cp_async_commit();
        at.codes = here + (first + lane / 8) * UNIT_BYTES + lane / 4 % 2 * 64 + lane % 4 * 16;
        at.steps = here + MANY * (int)UNIT_BYTES + (first + lane % 4) * STEP_BYTES;
        at.sums = here + MANY * (int)(UNIT_BYTES + STEP_BYTES) + (first + lane % 4) * sum_row;
        unit_multiply<D, MANY_MT, MANY_NT>(sums, now, u, x.chunks, at);
        if (u % 2 == 0 && u + 1 < x.units) continue;
        UNROLL
        for (int m = 0; m < MANY_MT; m++)
            UNROLL
            for (int n = 0; n < MANY_NT; n++)
                UNROLL
                for (int l = 0; l < 2; l++) total[m][n][l] += sums[m][n][l], sums[m][n][l] = 0;
    }
    cp_async_wait<0>();
    UNROLL
    for (int m = 0; m < MANY_MT; m++)
        UNROLL
        for (int n = 0; n < MANY_NT; n++) {
            const int64_t r = row + first + QUAD * n + lane % 4;
            UNROLL
            for (int l = 0; l < 2; l++)
                if (r < end) product_put(out, r, col + 16 * m + 8 * l + lane / 4, total[m][n][l]);
        }
}

template <enum dtype D> __global__ void __launch_bounds__(MANY_THREADS, 2) many_kernel(struct product_out out, struct packed w, struct wide x) {
    const struct tile_place at = tile_number(blockIdx.x, out.rows, out.cols, many_shape<D>::ROWS, MANY_COLS);
    many_tile<D>(out, w, x, at.row, out.rows, at.col);
}
template <enum dtype D>
__global__ void __launch_bounds__(MANY_THREADS, 2) many_runs_kernel(struct product_out out, struct packed w, struct wide x, struct runs runs, const __grid_constant__ struct run_weights weights) {
    struct run run;
    if (!run_number(&run, runs, (int)blockIdx.y, many_shape<D>::ROWS)) return;
    w.data = weights.data[run.expert];
    many_tile<D>(out, w, x, run.row, run.end, (int64_t)blockIdx.x * MANY_COLS);
}

// ---------------------------------------------------------------------------------------------------------------
// Which kernel. By the rows of x, which shows in no bit: a pass of `few` reads the weight again, mostly from L2, so that it is the
// better one until there are enough tiles of `many` for all multiprocessors.

template <enum dtype D, int MT, int NT> static void few_start(struct wide_list *list, const struct wide &x) {
    typedef few_shape<MT, NT> S;
    const struct few_turns turns = few_turns<MT, NT>(x.units, 1);
    int tiles = 0;
    for (int j = 0; j < list->count; j++) list->of[j].first = tiles, tiles += (int)ceil_div(list->of[j].w.rows, S::COLS);
    LAUNCH((few_kernel<D, MT, NT>), dim3(tiles, ceil_div(list->of[0].out.rows, S::ROWS)), turns.threads, turns.bytes, *list, turns.at_once, x);
}
template <enum dtype D> static void wide_products(struct wide_list *list, const struct wide &x) {
    const int64_t n = list->of[0].out.rows;
    if (n <= FEW_MOST) BY_FEW_ROWS(n, few_start, list, x);
    else
        for (int j = 0; j < list->count; j++) {
            const struct product_out &out = list->of[j].out;
            LAUNCH((many_kernel<D>), ceil_div(n, many_shape<D>::ROWS) * ceil_div(out.cols, MANY_COLS), MANY_THREADS, (size_t)(2 * many_stage<D>()), out, list->of[j].w, x);
        }
}
void cuda_wide_products(struct wide_list *list, enum dtype d, const struct wide &x) {
    switch (d) {
#define PRODUCT_CASE(upper, lower) \
    case DTYPE_##upper: wide_products<DTYPE_##upper>(list, x); break;
        CODED_DTYPES(PRODUCT_CASE)
    default: assert(!"no block format");
    }
}

template <enum dtype D, int MT, int NT>
static void few_runs_start(const struct product_out &out, const struct packed &w, const struct wide &x, const struct runs &runs, const struct run_weights &weights) {
    typedef few_shape<MT, NT> S;
    const struct few_turns turns = few_turns<MT, NT>(x.units, 1);
    const dim3 grid(ceil_div(out.cols, S::COLS), runs_tiles(out.rows, runs.experts, S::ROWS));
    LAUNCH((few_runs_kernel<D, MT, NT>), grid, turns.threads, turns.bytes, out, w, turns.at_once, x, runs, weights);
}
template <enum dtype D>
static void whole_runs(const struct product_out &out, const struct packed &w, const struct wide &x, const struct runs &runs, const struct run_weights &weights) {
    const int64_t each = ceil_div(out.rows, runs.experts);
    if (each <= QUAD) few_runs_start<D, 1, 1>(out, w, x, runs, weights);
    else if (each <= FEW_MOST) few_runs_start<D, 2, 4>(out, w, x, runs, weights);
    else
        LAUNCH((many_runs_kernel<D>), dim3(ceil_div(out.cols, MANY_COLS), runs_tiles(out.rows, runs.experts, many_shape<D>::ROWS)), MANY_THREADS,
               (size_t)(2 * many_stage<D>()), out, w, x, runs, weights);
}

// ---------------------------------------------------------------------------------------------------------------
// What backend.h asks for.

// Many rows: as many rows of the weight as there is room for become bf16, the product is that of numbers.
enum { ROUND_ROOM = 32 << 20, ROUND_ROWS = 256, ROUND_FEW = 64 };

static void rounded_by_slices(const struct matmul_args *a) {
    const struct backend *b = backend_cuda(0, NULL);
    const size_t row_bytes = (size_t)a->w.cols * sizeof(uint16_t);
    const int64_t each = min(a->w.rows, max((int64_t)1, (int64_t)(ROUND_ROOM / (row_bytes * ROUND_ROWS))) * ROUND_ROWS);
    void *room = cuda_scratch(SLOT_BLOCKS, (size_t)each * row_bytes);
    for (int64_t at = 0; at < a->w.rows; at += each) {
        const int64_t rows = min(each, a->w.rows - at);
        struct matmul_args some = *a;
        struct tensor from = a->w;
        from.data = row_at(a->w, at), from.rows = some.out.cols = rows;
        some.w = (struct tensor){room, DTYPE_BF16, LAYOUT_ROWS, 1, rows, a->w.cols, row_bytes};
        some.out.data = row_f32(a->out, 0) + at;
        cuda_expand_rows(&some.w, &from);
        b->matmul(&some);
    }
}

// A weight as it was loaded, or its rows packed into `room`.
static struct packed packed_of(const struct tensor &w, void *room) {
    if (w.layout == LAYOUT_DEVICE) return (struct packed){(const char *)w.data, w.row_bytes, w.rows};
    cuda_pack_rows(&w, room);
    return (struct packed){(const char *)room, coded_row_bytes(w.dtype, w.cols), w.rows};
}
static struct factor factor_of_packed(const struct packed &w) { return (struct factor){w.data, w.row_bytes, w.rows, true}; }
static size_t packing_bytes(const struct tensor &w) { return w.layout == LAYOUT_DEVICE ? 0 : (size_t)w.rows * coded_row_bytes(w.dtype, w.cols); }

static bool is_packed_or_rows(const struct tensor &w) { return is_coded(w.dtype) && w.mats == 1 && (is_rows(w) || (w.layout == LAYOUT_DEVICE && w.data)); }

void cuda_matmul_blocks(const struct matmul_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && is_packed_or_rows(a->w));
    assert(a->out.rows == a->x.rows && a->out.cols == a->w.rows && a->x.cols == a->w.cols);
    if (a->out.rows == 0 || a->out.cols == 0) return;
    const bool rounded = a->precision == PRECISION_BF16 && cuda_has_bf16();
    if (rounded && a->x.rows > ROUND_FEW) {
        rounded_by_slices(a);
        return;
    }
    const size_t room = packing_bytes(a->w);
    const struct packed w = packed_of(a->w, room ? cuda_scratch(SLOT_BLOCKS, room) : NULL);
    const struct product_out out = product_out_of(a->out, a->scale, a->accumulate);
    if (rounded) {
        cuda_rounded_blocks(out, a->x, factor_of_packed(w), a->w.dtype, NULL, NULL);
        return;
    }
    struct wide_list list = {{{w, out, 0}}, 1};
    cuda_wide_products(&list, a->w.dtype, cuda_widen(a->x, {}, 0, 0, NULL));
}

void cuda_matmul_experts_blocks(const struct matmul_experts_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && a->out.rows == a->x.rows && a->experts > 0);
    for (int64_t e = 0; e < a->experts; e++)
        assert(is_packed_or_rows(a->w[e]) && a->w[e].dtype == a->w->dtype && a->w[e].layout == a->w->layout && a->w[e].rows == a->out.cols && a->w[e].cols == a->x.cols);
    if (a->out.rows == 0 || a->out.cols == 0) return;
    const bool rounded = a->precision == PRECISION_BF16 && cuda_has_bf16();
    const size_t each = packing_bytes(*a->w);
    char *room = each ? (char *)cuda_scratch(SLOT_BLOCKS, (size_t)a->experts * each) : NULL;
    const struct product_out out = product_out_of(a->out, 1, false);
    struct wide x;
    if (!rounded) x = cuda_widen(a->x, {}, 0, 0, NULL);
    for (int64_t first = 0; first < a->experts; first += RUN_EXPERTS) {
        const struct runs runs = {a->start + first * a->segments, min(a->experts - first, (int64_t)RUN_EXPERTS), a->segments};
        struct run_weights weights;
        struct packed w;
        for (int64_t e = 0; e < runs.experts; e++) {
            w = packed_of(a->w[first + e], room + (size_t)(first + e) * each);
            weights.data[e] = w.data;
        }
        if (rounded) {
            cuda_rounded_blocks(out, a->x, factor_of_packed(w), a->w->dtype, &runs, &weights);
            continue;
        }
        switch (a->w->dtype) {
#define RUNS_CASE(upper, lower) \
    case DTYPE_##upper: whole_runs<DTYPE_##upper>(out, w, x, runs, weights); break;
            CODED_DTYPES(RUNS_CASE)
        default: assert(!"no block format");
        }
    }
}
