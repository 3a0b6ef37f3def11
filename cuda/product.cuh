// product.cuh: what every product with weights shares: its factors, where its sums go, and which tile a block computes.
//
//   out[r,c] = scale * sum over k of rows[r,k] cols[c,k]  (+ what was there)
//
// matmul: rows are x, cols w. matmul_dx: rows are dout, cols the columns of w. matmul_dw: rows are columns of dout, cols columns
// of x, and the terms are rows of the batch, segment by segment. With experts rows come in runs, one for each matrix.
//
// An *engine* knows how a block of threads computes one tile: a struct with
//   ROWS, COLS, THREADS, BLOCKS (that fit a multiprocessor), BYTES (of shared memory), sums (a type: what a thread holds)
//   zero(sums); add(sums, room, rows, row, cols, col, k, end): the terms [k, end) of the tile at (row, col); put(sums, out, row, col)
// and there are four: gemm.cuh and wgmma.cuh on tensor cores, chains.cuh in FMAs, for many rows and for few. The order of sums of an engine
// depends on the number of terms only.
#ifndef LEHR_CUDA_PRODUCT_CUH
#define LEHR_CUDA_PRODUCT_CUH

#include "cuda/cuda.cuh"

// Registers are only registers when loops over them are unrolled.
#ifdef CUDA_ON_CPU
#define UNROLL
#define UNROLL_NOT
#else
#define UNROLL _Pragma("unroll")
#define UNROLL_NOT _Pragma("unroll 1")
#endif

// ---------------------------------------------------------------------------------------------------------------
// Factors.

// One factor as it lies in memory. rows: outputs on its side. wide: its rows may be read 16 bytes at a time.
struct factor {
    const char *data;
    size_t row_bytes;
    int64_t rows;
    bool wide;
};
static inline struct factor factor_of(const struct tensor &t, int64_t outputs) {
    return (struct factor){(const char *)t.data, t.row_bytes, outputs, by_sixteen(t) && t.cols % (t.dtype == DTYPE_F32 ? 4 : 8) == 0};
}

// What is left of a dimension, as a loop over a tile needs it.
static __device__ __forceinline__ int at_most(int64_t n) { return (int)(n < 1 << 16 ? n : 1 << 16); }
// 16 bytes of numbers: the first `count` from `from` on, zeros behind them.
template <int BYTES> static __device__ __forceinline__ uint4 sixteen_read(const char *from, int count, bool wide) {
    uint4 r = make_uint4(0, 0, 0, 0);
    if (wide) return count > 0 ? *(const uint4 *)(const void *)from : r;
    uint32_t *to = &r.x;
    UNROLL
    for (int i = 0; i < 4; i++) {
        if (BYTES == 4) {
            if (i < count) to[i] = ((const uint32_t *)(const void *)from)[i];
        } else {
            const uint16_t *half = (const uint16_t *)(const void *)from + 2 * i;
            if (2 * i < count) to[i] = half[0];
            if (2 * i + 1 < count) to[i] |= (uint32_t)half[1] << 16;
        }
    }
    return r;
}

// ---------------------------------------------------------------------------------------------------------------
// Where sums go. All kernels of products end here, so that all round alike.

struct product_out {
    char *data;
    size_t row_bytes;
    int64_t rows, cols;
    float scale;
    bool accumulate, pairs; // pairs: two neighbours of even columns may be written at once
};
static inline struct product_out product_out_of(const struct tensor &t, float scale, bool accumulate) {
    return (struct product_out){(char *)t.data, t.row_bytes, t.rows, t.cols, one_if_zero(scale), accumulate,
                                ((uintptr_t)t.data | t.row_bytes) % 8 == 0};
}
static __device__ __forceinline__ float product_end(const struct product_out &out, float sum, float was) {
    return out.accumulate ? __fmaf_rn(out.scale, sum, was) : __fmul_rn(out.scale, sum);
}
static __device__ __forceinline__ void product_put(const struct product_out &out, int64_t row, int64_t col, float sum) {
    if (row >= out.rows || col >= out.cols) return;
    float *to = (float *)(void *)(out.data + (size_t)row * out.row_bytes) + col;
    *to = product_end(out, sum, out.accumulate ? *to : 0);
}
static __device__ __forceinline__ void product_put_two(const struct product_out &out, int64_t row, int64_t col, float first,
                                                       float second) {
    if (!out.pairs || col + 1 >= out.cols) {
        product_put(out, row, col, first);
        product_put(out, row, col + 1, second);
    } else if (row < out.rows) {
        float2 *to = (float2 *)(void *)(out.data + (size_t)row * out.row_bytes + (size_t)col * sizeof(float));
        const float2 was = out.accumulate ? *to : make_float2(0, 0);
        *to = make_float2(product_end(out, first, was.x), product_end(out, second, was.y));
    }
}
// ---------------------------------------------------------------------------------------------------------------
// Which tile a block computes.

// Tile `number` of a matrix, in groups of 8 rows of tiles: blocks that run at the same time share what they read through L2.
struct tile_place { int64_t row, col; };
static __device__ __forceinline__ struct tile_place tile_number(int64_t number, int64_t rows, int64_t cols, int tile_rows,
                                                                int tile_cols) {
    const int64_t down = ceil_div(rows, tile_rows), across = ceil_div(cols, tile_cols), group = number / (8 * across) * 8;
    const int64_t high = down - group < 8 ? down - group : 8, in = number - group * across;
    return (struct tile_place){(group + in % high) * tile_rows, in / high * tile_cols};
}

// Runs of rows, one an expert, as `start` of backend.h has them (on the device).
enum { RUN_EXPERTS = 256 };
struct runs {
    const int32_t *start;
    int64_t experts, segments; // from the first expert of this launch on
};
struct run {
    int64_t expert, row, end; // the tile begins at `row`, the expert's rows end at `end`
};
// Tile `number` of all experts' runs, tile_rows at a time; false where there are not so many. For whole warps.
static __device__ __forceinline__ bool run_number(struct run *to, const struct runs &r, int number, int tile_rows) {
    const int lane = (int)threadIdx.x % WARP;
    int before = 0;
    for (int64_t first = 0; first < r.experts; first += WARP) {
        const int64_t e = first + lane;
        const int from = e < r.experts ? r.start[e * r.segments] : 0, end = e < r.experts ? r.start[(e + 1) * r.segments] : 0;
        const int tiles = (end - from + tile_rows - 1) / tile_rows;
        int upto = tiles;
        for (int far = 1; far < WARP; far *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, upto, far);
            if (lane >= far) upto += other;
        }
        const unsigned found = __ballot_sync(0xffffffffu, before + upto > number);
        if (found) {
            const int who = __ffs((int)found) - 1;
            to->expert = first + who;
            to->row = __shfl_sync(0xffffffffu, from + (number - (before + upto - tiles)) * tile_rows, who);
            to->end = __shfl_sync(0xffffffffu, end, who);
            return true;
        }
        before += __shfl_sync(0xffffffffu, upto, WARP - 1);
    }
    return false;
}
// At most so many tiles cover `rows` rows of so many experts.
static inline int64_t runs_tiles(int64_t rows, int64_t experts, int tile_rows) {
    const int64_t most = (rows + experts * (tile_rows - 1)) / tile_rows;
    return most < rows ? most : rows;
}
// The matrices of a launch.
struct run_weights {
    const char *data[RUN_EXPERTS];
};

// ---------------------------------------------------------------------------------------------------------------
// The kernels: of one matrix, of a run of rows for each of many, and their twins that sum up over segments of rows.

template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS)
product_kernel(struct product_out out, struct factor rows, struct factor cols, int64_t K) {
    SHARED_REST(char, room);
    const struct tile_place at = tile_number(blockIdx.x, out.rows, out.cols, E::ROWS, E::COLS);
    typename E::sums sums;
    E::zero(sums);
    E::add(sums, room, rows, at.row, cols, at.col, 0, K);
    E::put(sums, out, at.row, at.col);
}
template <class E>
static inline void product_start(const struct product_out &out, const struct factor &rows, const struct factor &cols, int64_t K) {
    LAUNCH((product_kernel<E>), ceil_div(out.rows, E::ROWS) * ceil_div(out.cols, E::COLS), E::THREADS, E::BYTES, out, rows, cols, K);
}

// cols: as one of the matrices, whose data is in `weights`. Consecutive blocks take the tiles of all runs for the same columns.
template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS)
product_runs_kernel(struct product_out out, struct factor rows, struct factor cols, int64_t K, struct runs runs, int tiles,
                    const __grid_constant__ struct run_weights weights) {
    SHARED_REST(char, room);
    struct run run;
    if (!run_number(&run, runs, (int)(blockIdx.x % (unsigned)tiles), E::ROWS)) return;
    const int64_t col = (int64_t)(blockIdx.x / (unsigned)tiles) * E::COLS;
    cols.data = weights.data[run.expert];
    rows.rows = out.rows = run.end;
    typename E::sums sums;
    E::zero(sums);
    E::add(sums, room, rows, run.row, cols, col, 0, K);
    E::put(sums, out, run.row, col);
}
template <class E>
static inline void product_runs_start(const struct product_out &out, const struct factor &rows, const struct factor &cols,
                                      int64_t K, const struct runs &runs, const struct run_weights &weights) {
    const int64_t tiles = runs_tiles(out.rows, runs.experts, E::ROWS);
    LAUNCH((product_runs_kernel<E>), tiles * ceil_div(out.cols, E::COLS), E::THREADS, E::BYTES, out, rows, cols, K, runs,
           (int)tiles, weights);
}

// A tile walks through its segments in order; in between its sums lie in out, which for the tiles under way at one time is in L2.
template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS)
product_segments_kernel(struct product_out out, struct factor rows, struct factor cols, int64_t n, int64_t segment) {
    SHARED_REST(char, room);
    const struct tile_place at = tile_number(blockIdx.x, out.rows, out.cols, E::ROWS, E::COLS);
    typename E::sums sums;
    UNROLL_NOT
    for (int64_t from = 0; from < n; from += segment) {
        E::zero(sums);
        E::add(sums, room, rows, at.row, cols, at.col, from, from + segment);
        E::put(sums, out, at.row, at.col);
        out.accumulate = true;
    }
}
template <class E>
static inline void product_segments_start(const struct product_out &out, const struct factor &rows, const struct factor &cols,
                                          int64_t n, int64_t segment) {
    LAUNCH((product_segments_kernel<E>), ceil_div(out.rows, E::ROWS) * ceil_div(out.cols, E::COLS), E::THREADS, E::BYTES, out,
           rows, cols, n, segment);
}

// out: of the first expert; those of the others follow it.
template <class E>
__global__ void __launch_bounds__(E::THREADS, E::BLOCKS)
product_runs_segments_kernel(struct product_out out, struct factor rows, struct factor cols, struct runs runs) {
    SHARED_REST(char, room);
    const int64_t tiles = ceil_div(out.rows, E::ROWS) * ceil_div(out.cols, E::COLS), expert = blockIdx.x / tiles;
    const struct tile_place at = tile_number(blockIdx.x % tiles, out.rows, out.cols, E::ROWS, E::COLS);
    const int32_t *start = runs.start + expert * runs.segments;
    out.data += (size_t)(expert * out.rows) * out.row_bytes;
    typename E::sums sums;
    E::zero(sums);
    if (start[0] == start[runs.segments] && !out.accumulate) E::put(sums, out, at.row, at.col); // nobody chose it
    UNROLL_NOT
    for (int64_t s = 0; s < runs.segments; s++) {
        if (start[s] == start[s + 1]) continue;
        E::zero(sums);
        E::add(sums, room, rows, at.row, cols, at.col, start[s], start[s + 1]);
        E::put(sums, out, at.row, at.col);
        out.accumulate = true;
    }
}
template <class E>
static inline void product_runs_segments_start(const struct product_out &out, const struct factor &rows,
                                               const struct factor &cols, const struct runs &runs) {
    LAUNCH((product_runs_segments_kernel<E>), ceil_div(out.rows, E::ROWS) * ceil_div(out.cols, E::COLS) * runs.experts,
           E::THREADS, E::BYTES, out, rows, cols, runs);
}
#endif
