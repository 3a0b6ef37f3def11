// wgmma.cuh: the products of gemm.cuh as Hopper multiplies best: warpgroups that read both factors from shared memory themselves.
//
// Takers and tiles are those of gemm.cuh; only the multiplication between two barriers is another one. It is begun, and while it
// goes on, the next tiles are brought in and the barrier of the next step is passed: tensor cores have the next product waiting when
// they end one. So three tiles are spoken for at any time: the one that is multiplied, the one before it, which may be under way
// still, and the one that comes next. A tile is written again two steps after it was multiplied.
//
//   step t   tile t has come, for all (barrier)  ->  all have ended tile t - 2  ->  begin to bring tile t + STAGES - 2 into its place
//            ->  begin to multiply tile t  ->  wait for the end of t - 1
//
// The order of a sum is again k16 step after k16 step in one accumulator, whatever the tile. Inside a step the tensor cores add in an
// order of their own, which need not be that of mma_bf16; and that it is the same for every number of columns of wgmma_bf16 is
// written nowhere. So a GPU either makes all products in bf16 with wgmma, those of one row, too (64 rows of a tile, mostly of zeros:
// reading the weights takes longer), or none; and wgmma.cu asks each GPU for the bits of all shapes before it is believed.
#ifndef LEHR_CUDA_WGMMA_CUH
#define LEHR_CUDA_WGMMA_CUH

#include "cuda/gemm.cuh"

// ROWS x COLS outputs of a block, 64 rows of them to a warpgroup with one instruction a step; STAGES tiles, of which STAGES - 2 are on
// their way; BLOCKS on a multiprocessor are hoped for. In bytes of shared memory read and written for a product of two numbers 128 x
// 256 is just as fast as the tensor cores, so nothing smaller is.
template <int ROWS_, int COLS_, int STAGES_, int BLOCKS_> struct wgmma_shape {
    enum {
        ROWS = ROWS_, COLS = COLS_, STAGES = STAGES_, BLOCKS = BLOCKS_, GROUP_ROWS = 64, THREADS = ROWS / GROUP_ROWS * WARPGROUP,
        COLS_AT = ROWS * GEMM_K, STAGE = COLS_AT + COLS * GEMM_K, // numbers
        ALIGN = 1024, BYTES = STAGES * STAGE * 2 + ALIGN,
    };
};
typedef wgmma_shape<64, 32, 6, 3> wgmma_few;         // 73 KiB
typedef wgmma_shape<64, 64, 6, 2> wgmma_few_across;  // 97 KiB: outputs of a tile that lies across come by 64
typedef wgmma_shape<64, 64, 4, 3> wgmma_small;       // 65 KiB
typedef wgmma_shape<128, 128, 3, 2> wgmma_large;     // 97 KiB
typedef wgmma_shape<128, 256, 4, 1> wgmma_huge;      // 193 KiB

// What a thread holds of the 64 x COLS outputs of its group: d of wgmma_bf16.
template <class S> struct wgmma_sums {
    float at[S::COLS / 2];
};
// What was summed up by wgmma is there behind this line, and not before it.
template <class S> static __device__ __forceinline__ void wgmma_keep(struct wgmma_sums<S> &sums) {
    UNROLL
    for (int i = 0; i < S::COLS / 2; i++) keep_here(sums.at[i]);
}

// Begins: sums += one tile of each factor. A k16 step is 32 bytes of each row where a tile lies along, 16 rows where it lies across.
template <class S, class Rows, class Cols>
static __device__ __forceinline__ void wgmma_tile(struct wgmma_sums<S> &sums, uint16_t *rows, uint16_t *cols) {
    enum { PANEL = 64 * GEMM_K * 2, EIGHT = 8 * GEMM_K * 2 }; // bytes: 64 outputs by GEMM_K terms, and eight rows of 64 numbers
    constexpr bool rows_across = (int)Rows::ACROSS != LIES_ALONG, cols_across = (int)Cols::ACROSS != LIES_ALONG;
    rows += (int)threadIdx.x / WARPGROUP * S::GROUP_ROWS * GEMM_K;
    wgmma_fence();
    UNROLL
    for (int s = 0; s < GEMM_K / 16; s++) {
        const uint64_t a = wgmma_matrix(rows + s * (rows_across ? 16 * 64 : 16), PANEL, EIGHT);
        const uint64_t b = wgmma_matrix(cols + s * (cols_across ? 16 * 64 : 16), PANEL, EIGHT);
        wgmma_bf16<S::COLS, rows_across, cols_across>(sums.at, a, b);
    }
    wgmma_commit();
}

// sums += the terms [k, end) of the tile of out at (row, col). given: S::BYTES of shared memory, free again afterwards.
template <class S, class Rows, class Cols>
static __device__ __forceinline__ void wgmma_add(struct wgmma_sums<S> &sums, void *given, const struct factor &rows, int64_t row,
                                                 const struct factor &cols, int64_t col, int64_t k, int64_t end) {
    enum { N = S::THREADS, AHEAD = S::STAGES - 2 };
    static_assert((int)Rows::ACROSS != LIES_ACROSS && (int)Cols::ACROSS != LIES_ACROSS, "wgmma reads panels");
    static_assert(GEMM_K == 64, "a row of a tile is what a swizzle of 128 bytes goes over");
    uint16_t *room = (uint16_t *)(void *)((char *)given + (-shared_address(given) & (S::ALIGN - 1)));
    typename Rows::template held<S::ROWS, N> rows_held;
    typename Cols::template held<S::COLS, N> cols_held;
    const int count = (int)ceil_div(end - k, GEMM_K);
    UNROLL_NOT
    for (int t = 0; t < AHEAD; t++) {
        uint16_t *rows_tile = room + t * S::STAGE, *cols_tile = rows_tile + S::COLS_AT;
        if (t < count) {
            Rows::template fetch<S::ROWS, N>(rows_held, rows, rows_tile, row, k + t * GEMM_K, end);
            Cols::template fetch<S::COLS, N>(cols_held, cols, cols_tile, col, k + t * GEMM_K, end);
            Rows::template store<S::ROWS, N>(rows_held, rows, rows_tile, row, k + t * GEMM_K, end);
            Cols::template store<S::COLS, N>(cols_held, cols, cols_tile, col, k + t * GEMM_K, end);
        }
        cp_async_commit();
    }
    wgmma_keep(sums); // zeros are made before the loop
    int slot = 0, free = AHEAD;
    UNROLL_NOT
    for (int t = 0; t < count; t++) {
        cp_async_wait<AHEAD - 1>();
        fence_proxy_async();
        __syncthreads(); // tile t is there, and everybody has done with tile t - 2, whose place the next one takes
        const bool more = t + AHEAD < count;
        const int64_t next_k = k + (int64_t)(t + AHEAD) * GEMM_K;
        uint16_t *rows_next = room + free * S::STAGE, *cols_next = rows_next + S::COLS_AT;
        if (more) {
            Rows::template fetch<S::ROWS, N>(rows_held, rows, rows_next, row, next_k, end);
            Cols::template fetch<S::COLS, N>(cols_held, cols, cols_next, col, next_k, end);
        }
        cp_async_commit();
        uint16_t *rows_tile = room + slot * S::STAGE, *cols_tile = rows_tile + S::COLS_AT;
        wgmma_tile<S, Rows, Cols>(sums, rows_tile, cols_tile);
        if (more) {
            Rows::template store<S::ROWS, N>(rows_held, rows, rows_next, row, next_k, end);
            Cols::template store<S::COLS, N>(cols_held, cols, cols_next, col, next_k, end);
        }
        wgmma_wait<1>();
        slot = slot + 1 == S::STAGES ? 0 : slot + 1, free = free + 1 == S::STAGES ? 0 : free + 1;
    }
    wgmma_wait<0>();
    wgmma_keep(sums);
    cp_async_wait<0>();
    __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------------
// As the kernels of product.cuh take it. Other GPUs get kernels without a body, which nobody starts.

template <class S, class Rows, class Cols> struct wgmma {
    enum { ROWS = S::ROWS, COLS = S::COLS, THREADS = S::THREADS, BLOCKS = S::BLOCKS, BYTES = S::BYTES };
    typedef wgmma_sums<S> sums;
    static __device__ __forceinline__ void zero(sums &s) {
        UNROLL
        for (int i = 0; i < S::COLS / 2; i++) s.at[i] = 0;
    }
    static __device__ __forceinline__ void add(sums &s, void *room, const struct factor &rows, int64_t row,
                                               const struct factor &cols, int64_t col, int64_t k, int64_t end) {
        if constexpr (CUDA_WGMMA) wgmma_add<S, Rows, Cols>(s, room, rows, row, cols, col, k, end);
    }
    static __device__ __forceinline__ void put(const sums &s, const struct product_out &out, int64_t row, int64_t col) {
        const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP; // 16 rows each
        if constexpr (!CUDA_WGMMA) return;
        UNROLL
        for (int j = 0; j < S::COLS / 8; j++) {
            const int64_t r = row + 16 * warp + lane / 4, c = col + 8 * j + lane % 4 * 2;
            product_put_two(out, r, c, s.at[4 * j], s.at[4 * j + 1]);
            product_put_two(out, r + 8, c, s.at[4 * j + 2], s.at[4 * j + 3]);
        }
    }
};

// The shape that takes the place of one of gemm.cuh.
template <class S, bool ACROSS> struct wgmma_for;
template <> struct wgmma_for<gemm_few, false> { typedef wgmma_few shape; };
template <> struct wgmma_for<gemm_few, true> { typedef wgmma_few_across shape; };
template <bool ACROSS> struct wgmma_for<gemm_small, ACROSS> { typedef wgmma_small shape; };
template <bool ACROSS> struct wgmma_for<gemm_large, ACROSS> { typedef wgmma_large shape; };
template <bool ACROSS> struct wgmma_for<gemm_huge, ACROSS> { typedef wgmma_huge shape; };
// And the taker: tiles that lie across lie in panels here.
template <class T> struct wgmma_takes { typedef T taker; };
template <> struct wgmma_takes<take_bf16<LIES_ACROSS>> { typedef take_bf16<LIES_IN_PANELS> taker; };
template <enum dtype D> struct wgmma_takes<take_numbers<D, LIES_ACROSS>> { typedef take_numbers<D, LIES_IN_PANELS> taker; };
template <class S, class Rows, class Cols>
using wgmma_of = wgmma<typename wgmma_for<S, (int)Cols::ACROSS != LIES_ALONG>::shape,
                       typename wgmma_takes<Rows>::taker, typename wgmma_takes<Cols>::taker>;

// ---------------------------------------------------------------------------------------------------------------
// Launches of every product in bf16: those of product.cuh, by the engine that this GPU has.

template <class S, class Rows, class Cols>
static inline void gemm_start(const struct product_out &out, const struct factor &rows, const struct factor &cols, int64_t K) {
    if (cuda_has_wgmma()) product_start<wgmma_of<S, Rows, Cols>>(out, rows, cols, K);
    else product_start<gemm<S, Rows, Cols>>(out, rows, cols, K);
}
template <class S, class Rows, class Cols>
static inline void gemm_runs_start(const struct product_out &out, const struct factor &rows, const struct factor &cols, int64_t K,
                                   const struct runs &runs, const struct run_weights &weights) {
    if (cuda_has_wgmma()) product_runs_start<wgmma_of<S, Rows, Cols>>(out, rows, cols, K, runs, weights);
    else product_runs_start<gemm<S, Rows, Cols>>(out, rows, cols, K, runs, weights);
}
template <class S, class Rows, class Cols>
static inline void gemm_segments_start(const struct product_out &out, const struct factor &rows, const struct factor &cols, int64_t n,
                                       int64_t segment) {
    if (cuda_has_wgmma()) product_segments_start<wgmma_of<S, Rows, Cols>>(out, rows, cols, n, segment);
    else product_segments_start<gemm<S, Rows, Cols>>(out, rows, cols, n, segment);
}
template <class S, class Rows, class Cols>
static inline void gemm_runs_segments_start(const struct product_out &out, const struct factor &rows, const struct factor &cols,
                                            const struct runs &runs) {
    if (cuda_has_wgmma()) product_runs_segments_start<wgmma_of<S, Rows, Cols>>(out, rows, cols, runs);
    else product_runs_segments_start<gemm<S, Rows, Cols>>(out, rows, cols, runs);
}
#endif
