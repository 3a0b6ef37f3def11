// gemm.cuh: products of PRECISION_BF16 on tensor cores, whatever the factors look like in memory.
//
//   out[r,c] = scale * sum over k of rows[r,k] cols[c,k]  (+ what was there)
//
// A block of threads computes one tile of out, GEMM_K terms at a time: it brings a tile of each factor into shared memory as
// bf16 while it multiplies the one that came before. The order of a sum is k16 step after k16 step from the first term on, in
// one accumulator, for every shape of tile: so a tile may be chosen by n, and a row keeps its bits (rule 2 of backend.h).
//
// A factor is read by a *taker*, a struct of constants and static functions, the only thing here that knows formats:
//
//   enum { ACROSS };            // how the tile lies, below: LIES_...
//   held<ROWS, THREADS>         // what a thread carries in registers from fetch to store; empty where copies are asynchronous
//   fetch<ROWS, THREADS>(held, factor, tile, row, k, end)  // begins: loads into held, or cp_async16 into the tile
//   store<ROWS, THREADS>(held, factor, tile, row, k, end)  // ends: converts what is held and writes it into the tile
//
// Both are called by all THREADS threads for the same tile: ROWS outputs from `row` on, GEMM_K terms from k on. Terms from
// `end` on and rows from factor.rows on are zeros in the tile. Between the two lie a tile's worth of products, which hide the
// latency of the loads; barriers are the caller's.
//
// A tile is made of chunks of 16 bytes, 8 numbers of bf16 each, placed so that ldmatrix and 16-byte stores find no bank twice:
//   along   chunk c of row r holds terms 8 c .. 8 c + 7 of that output; for factors whose rows run over k
//   across  chunk c of term k holds outputs 8 c .. 8 c + 7; for factors whose rows are terms, as w in dx and both in dw
//   panels  the same, by 64 outputs: all terms of 64 of them, then those of the next 64
// The first and the last are what wgmma reads with a swizzle of 128 bytes (wgmma.cuh, which has the launches, too).
#ifndef LEHR_CUDA_GEMM_CUH
#define LEHR_CUDA_GEMM_CUH

#include "cuda/product.cuh"

enum { GEMM_K = 64, GEMM_CHUNKS = GEMM_K / 8 };
enum { LIES_ALONG, LIES_ACROSS, LIES_IN_PANELS };

static __device__ __forceinline__ uint16_t *along_at(uint16_t *tile, int row, int chunk) {
    return tile + row * GEMM_K + (chunk ^ (row & 7)) * 8;
}
template <int ROWS> static __device__ __forceinline__ uint16_t *across_at(uint16_t *tile, int term, int chunk) {
    return tile + term * ROWS + (chunk ^ (term & (ROWS < 64 ? ROWS / 8 - 1 : 7))) * 8;
}
static __device__ __forceinline__ uint16_t *panels_at(uint16_t *tile, int term, int chunk) {
    return tile + chunk / 8 * (64 * GEMM_K) + term * 64 + (chunk % 8 ^ (term & 7)) * 8;
}

// ---------------------------------------------------------------------------------------------------------------
// Takers of numbers. Memory has lines: rows of outputs (along) or of terms (across); a chunk of a tile is a place in a line.

// What a thread takes: a chunk of every EACH-th line. All that a step needs of 64 bits is made anew in every step (keep_here): else
// the compiler keeps an address for each chunk in registers, which the sums need.
template <int ACROSS, int ROWS, int THREADS> struct lines {
    enum { CHUNKS = ACROSS ? ROWS / 8 : GEMM_CHUNKS, EACH = THREADS / CHUNKS, COUNT = ROWS * GEMM_CHUNKS / THREADS };
    const char *first;
    size_t bytes;
    int line, chunk, lines_left, numbers_left;
    __device__ __forceinline__ lines(const struct factor &f, int number_bytes, int64_t row, int64_t k, int64_t end)
        : bytes(f.row_bytes * EACH), line((int)threadIdx.x / CHUNKS), chunk((int)threadIdx.x % CHUNKS) {
        const int64_t from = (ACROSS ? k : row) + line, place = (ACROSS ? row : k) + 8 * chunk;
        first = f.data + (size_t)from * f.row_bytes + (size_t)place * (size_t)number_bytes;
        lines_left = at_most((ACROSS ? end : f.rows) - from), numbers_left = at_most((ACROSS ? f.rows : end) - place);
        keep_here(bytes), keep_here(lines_left);
    }
    __device__ __forceinline__ int left(int i) const { return i * EACH < lines_left ? numbers_left : 0; }
    __device__ __forceinline__ uint16_t *at(uint16_t *tile, int i) const {
        if constexpr (ACROSS == LIES_IN_PANELS) return panels_at(tile, line + i * EACH, chunk);
        else return ACROSS ? across_at<ROWS>(tile, line + i * EACH, chunk) : along_at(tile, line + i * EACH, chunk);
    }
};

// bf16 that may be read wide: straight into the tile.
template <int ACROSS_> struct take_bf16 {
    enum { ACROSS = ACROSS_ };
    template <int ROWS, int THREADS> struct held {};
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void fetch(held<ROWS, THREADS> &, const struct factor &f, uint16_t *tile, int64_t row,
                                                 int64_t k, int64_t end) {
        const struct lines<ACROSS, ROWS, THREADS> of(f, 2, row, k, end);
        const char *from = of.first;
        UNROLL
        for (int i = 0; i < of.COUNT; i++, from += of.bytes) cp_async16(of.at(tile, i), from, of.left(i) > 0);
    }
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void store(const held<ROWS, THREADS> &, const struct factor &, uint16_t *, int64_t,
                                                 int64_t, int64_t) {}
};

// Eight numbers as they lie in memory, and as bf16.
template <enum dtype D> struct eight {
    uint4 part[D == DTYPE_F32 ? 2 : 1];
};
template <enum dtype D> static __device__ __forceinline__ uint4 eight_bf16(const struct eight<D> &e) {
    if (D == DTYPE_BF16) return e.part[0];
    const uint32_t *u = &e.part[0].x;
    uint4 r;
    uint32_t *to = &r.x;
    UNROLL
    for (int i = 0; i < 4; i++) {
        if (D == DTYPE_F32) to[i] = pack_bf16(__uint_as_float(u[2 * i]), __uint_as_float(u[2 * i + 1]));
        else to[i] = pack_bf16(from_f16((uint16_t)u[i]), from_f16((uint16_t)(u[i] >> 16)));
    }
    return r;
}
template <enum dtype D> static __device__ __forceinline__ struct eight<D> eight_read(const char *from, int count, bool wide) {
    struct eight<D> e;
    e.part[0] = sixteen_read<D == DTYPE_F32 ? 4 : 2>(from, count, wide);
    if (D == DTYPE_F32) e.part[D == DTYPE_F32] = sixteen_read<4>(from + 16, count - 4, wide);
    return e;
}

// Numbers of any dtype and alignment: through registers, rounded on the way.
template <enum dtype D, int ACROSS_> struct take_numbers {
    enum { ACROSS = ACROSS_, BYTES = D == DTYPE_F32 ? 4 : 2 };
    template <int ROWS, int THREADS> struct held { struct eight<D> of[ROWS * GEMM_CHUNKS / THREADS]; };
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void fetch(held<ROWS, THREADS> &h, const struct factor &f, uint16_t *, int64_t row,
                                                 int64_t k, int64_t end) {
        const struct lines<ACROSS, ROWS, THREADS> of(f, BYTES, row, k, end);
        const char *from = of.first;
        UNROLL
        for (int i = 0; i < of.COUNT; i++, from += of.bytes) h.of[i] = eight_read<D>(from, of.left(i), f.wide);
    }
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void store(const held<ROWS, THREADS> &h, const struct factor &f, uint16_t *tile,
                                                 int64_t row, int64_t k, int64_t end) {
        const struct lines<ACROSS, ROWS, THREADS> of(f, BYTES, row, k, end);
        UNROLL
        for (int i = 0; i < of.COUNT; i++) *(uint4 *)(void *)of.at(tile, i) = eight_bf16<D>(h.of[i]);
    }
};

// ---------------------------------------------------------------------------------------------------------------
// Shapes of tiles: ROWS x COLS outputs of a block, WARP_ROWS x WARP_COLS of each of its warps, STAGES tiles under way. BLOCKS
// on a multiprocessor are hoped for. What a warp reads from shared memory for a product of two numbers falls with its tile: 64 x
// 64 is where ldmatrix keeps up with the tensor cores; what a block reads through L2 falls with its own.
template <int ROWS_, int COLS_, int WARP_ROWS_, int WARP_COLS_, int STAGES_, int BLOCKS_> struct gemm_shape {
    enum {
        ROWS = ROWS_, COLS = COLS_, WARP_ROWS = WARP_ROWS_, WARP_COLS = WARP_COLS_, STAGES = STAGES_, BLOCKS = BLOCKS_,
        THREADS = (ROWS / WARP_ROWS) * (COLS / WARP_COLS) * WARP,
        COLS_AT = ROWS * GEMM_K, STAGE = COLS_AT + COLS * GEMM_K, // numbers
        BYTES = STAGES * STAGE * 2,
    };
};
typedef gemm_shape<16, 32, 16, 16, 6, 4> gemm_few;     // 36 KiB: few rows, where reading the weights is all there is
typedef gemm_shape<64, 64, 32, 32, 3, 3> gemm_small;   // 48 KiB
typedef gemm_shape<128, 128, 64, 64, 3, 2> gemm_large; // 96 KiB
typedef gemm_shape<128, 256, 64, 64, 3, 1> gemm_huge;  // 144 KiB: not on GPUs with 99

template <class S> struct gemm_sums {
    float at[S::WARP_ROWS / 16][S::WARP_COLS / 8][4];
};

// Fragments of a warp for k16 step `step` of a tile: 16 of its rows, and all of its columns, two neighbours of 8 together.
template <class S> struct gemm_cols {
    uint32_t at[S::WARP_COLS / 16][4];
};
template <class S, class Rows>
static __device__ __forceinline__ void gemm_read_rows(uint32_t to[4], uint16_t *tile, int i, int step) {
    const int lane = (int)threadIdx.x % WARP, row = (int)threadIdx.x / WARP / (S::COLS / S::WARP_COLS) * S::WARP_ROWS;
    if (Rows::ACROSS) {
        uint16_t *from = across_at<S::ROWS>(tile, 16 * step + lane / 16 * 8 + lane % 8, row / 8 + 2 * i + lane / 8 % 2);
        ldmatrix_x4_trans(to, from);
    } else {
        uint16_t *from = along_at(tile, row + 16 * i + lane % 16, 2 * step + lane / 16);
        ldmatrix_x4(to, from);
    }
}
template <class S, class Cols>
static __device__ __forceinline__ void gemm_read_cols(struct gemm_cols<S> &to, uint16_t *tile, int step) {
    const int lane = (int)threadIdx.x % WARP, col = (int)threadIdx.x / WARP % (S::COLS / S::WARP_COLS) * S::WARP_COLS;
    UNROLL
    for (int j = 0; j < S::WARP_COLS / 16; j++) {
        if (Cols::ACROSS) {
            uint16_t *from = across_at<S::COLS>(tile, 16 * step + lane / 8 % 2 * 8 + lane % 8, col / 8 + 2 * j + lane / 16);
            ldmatrix_x4_trans(to.at[j], from);
        } else {
            uint16_t *from = along_at(tile, col + 16 * j + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2);
            ldmatrix_x4(to.at[j], from);
        }
    }
}
// sums += one tile of each factor. Fragments are read a step ahead, those of rows into the place of the ones just used.
template <class S, class Rows, class Cols>
static __device__ __forceinline__ void gemm_tile(struct gemm_sums<S> &sums, uint16_t *rows, uint16_t *cols) {
    enum { STEPS = GEMM_K / 16, DOWN = S::WARP_ROWS / 16, ASIDE = S::WARP_COLS / 8 };
    uint32_t part[DOWN][4];
    struct gemm_cols<S> with[2];
    gemm_read_cols<S, Cols>(with[0], cols, 0);
    UNROLL
    for (int i = 0; i < DOWN; i++) gemm_read_rows<S, Rows>(part[i], rows, i, 0);
    UNROLL
    for (int s = 0; s < STEPS; s++) {
        if (s + 1 < STEPS) gemm_read_cols<S, Cols>(with[(s + 1) % 2], cols, s + 1);
        UNROLL
        for (int i = 0; i < DOWN; i++) {
            UNROLL
            for (int j = 0; j < ASIDE; j++) mma_bf16(sums.at[i][j], part[i], with[s % 2].at[j / 2] + j % 2 * 2);
            if (s + 1 < STEPS) gemm_read_rows<S, Rows>(part[i], rows, i, s + 1);
        }
    }
}

// sums += the terms [k, end) of the tile of out at (row, col). room: S::BYTES of shared memory, free again afterwards.
template <class S, class Rows, class Cols>
static __device__ __forceinline__ void gemm_add(struct gemm_sums<S> &sums, uint16_t *room, const struct factor &rows, int64_t row,
                                                const struct factor &cols, int64_t col, int64_t k, int64_t end) {
    enum { N = S::THREADS };
    typename Rows::template held<S::ROWS, N> rows_held;
    typename Cols::template held<S::COLS, N> cols_held;
    const int count = (int)ceil_div(end - k, GEMM_K);
    UNROLL_NOT
    for (int t = 0; t < S::STAGES - 1; t++) {
        uint16_t *rows_tile = room + t * S::STAGE, *cols_tile = rows_tile + S::COLS_AT;
        if (t < count) {
            Rows::template fetch<S::ROWS, N>(rows_held, rows, rows_tile, row, k + t * GEMM_K, end);
            Cols::template fetch<S::COLS, N>(cols_held, cols, cols_tile, col, k + t * GEMM_K, end);
            Rows::template store<S::ROWS, N>(rows_held, rows, rows_tile, row, k + t * GEMM_K, end);
            Cols::template store<S::COLS, N>(cols_held, cols, cols_tile, col, k + t * GEMM_K, end);
        }
        cp_async_commit();
    }
    int slot = 0;
    UNROLL_NOT
    for (int t = 0; t < count; t++) {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads(); // tile t is there, and everybody has done with tile t - 1, whose place the next one takes
        const int next = t + S::STAGES - 1, free = slot == 0 ? S::STAGES - 1 : slot - 1;
        const bool more = next < count;
        const int64_t next_k = k + (int64_t)next * GEMM_K;
        uint16_t *rows_next = room + free * S::STAGE, *cols_next = rows_next + S::COLS_AT;
        if (more) {
            Rows::template fetch<S::ROWS, N>(rows_held, rows, rows_next, row, next_k, end);
            Cols::template fetch<S::COLS, N>(cols_held, cols, cols_next, col, next_k, end);
        }
        cp_async_commit();
        uint16_t *rows_tile = room + slot * S::STAGE, *cols_tile = rows_tile + S::COLS_AT;
        gemm_tile<S, Rows, Cols>(sums, rows_tile, cols_tile);
        if (more) {
            Rows::template store<S::ROWS, N>(rows_held, rows, rows_next, row, next_k, end);
            Cols::template store<S::COLS, N>(cols_held, cols, cols_next, col, next_k, end);
        }
        slot = slot + 1 == S::STAGES ? 0 : slot + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
}
template <class S> static __device__ __forceinline__ void gemm_zero(struct gemm_sums<S> &sums) {
    UNROLL
    for (int i = 0; i < S::WARP_ROWS / 16; i++)
        UNROLL
        for (int j = 0; j < S::WARP_COLS / 8; j++)
            UNROLL
            for (int l = 0; l < 4; l++) sums.at[i][j][l] = 0;
}

// ---------------------------------------------------------------------------------------------------------------
// The tile of out at (row, col).
template <class S>
static __device__ __forceinline__ void gemm_put(const struct gemm_sums<S> &sums, const struct product_out &out, int64_t row,
                                                int64_t col) {
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    row += warp / (S::COLS / S::WARP_COLS) * S::WARP_ROWS + lane / 4;
    col += warp % (S::COLS / S::WARP_COLS) * S::WARP_COLS + lane % 4 * 2;
    UNROLL
    for (int i = 0; i < S::WARP_ROWS / 16; i++)
        UNROLL
        for (int j = 0; j < S::WARP_COLS / 8; j++) {
            product_put_two(out, row + 16 * i, col + 8 * j, sums.at[i][j][0], sums.at[i][j][1]);
            product_put_two(out, row + 16 * i + 8, col + 8 * j, sums.at[i][j][2], sums.at[i][j][3]);
        }
}

// ---------------------------------------------------------------------------------------------------------------
// As the kernels of product.cuh take it.

template <class S, class Rows, class Cols> struct gemm {
    enum { ROWS = S::ROWS, COLS = S::COLS, THREADS = S::THREADS, BLOCKS = S::BLOCKS, BYTES = S::BYTES };
    typedef gemm_sums<S> sums;
    static __device__ __forceinline__ void zero(sums &s) { gemm_zero<S>(s); }
    static __device__ __forceinline__ void add(sums &s, void *room, const struct factor &rows, int64_t row,
                                               const struct factor &cols, int64_t col, int64_t k, int64_t end) {
        gemm_add<S, Rows, Cols>(s, (uint16_t *)room, rows, row, cols, col, k, end);
    }
    static __device__ __forceinline__ void put(const sums &s, const struct product_out &out, int64_t row, int64_t col) {
        gemm_put<S>(s, out, row, col);
    }
};

// ---------------------------------------------------------------------------------------------------------------
// On the host.

// The shape of tiles for an out of [rows, cols], where rows are more than a few: the least time by what a multiprocessor is
// taken to do with each, tiles being dealt out in whole waves. Only speed depends on it.
enum gemm_size { GEMM_SMALL, GEMM_LARGE, GEMM_HUGE };
static inline enum gemm_size gemm_size_for(int64_t rows, int64_t cols) {
    const struct { int rows, cols, blocks; double speed; } shape[] = {
        {gemm_small::ROWS, gemm_small::COLS, gemm_small::BLOCKS, .5},
        {gemm_large::ROWS, gemm_large::COLS, gemm_large::BLOCKS, .85},
        {gemm_huge::ROWS, gemm_huge::COLS, gemm_huge::BLOCKS, 1},
    };
    double least = 0;
    enum gemm_size best = GEMM_SMALL;
    for (int i = GEMM_SMALL; i <= (cuda_shared_most() >= (size_t)gemm_huge::BYTES ? GEMM_HUGE : GEMM_LARGE); i++) {
        const int64_t tiles = ceil_div(rows, shape[i].rows) * ceil_div(cols, shape[i].cols), processors = cuda_processors();
        const int64_t waves = ceil_div(tiles, processors * shape[i].blocks);
        const int64_t each = waves == 1 ? ceil_div(tiles, processors) : waves * shape[i].blocks; // of one multiprocessor
        const double time = (double)each * shape[i].rows * shape[i].cols / shape[i].speed;
        if (i == GEMM_SMALL || time < least) least = time, best = (enum gemm_size)i;
    }
    return best;
}

// Rounds t to bf16 at `to`, in rows of product_rounded_bytes(t.cols) bytes, which may be read wide.
static inline size_t product_rounded_bytes(int64_t cols) { return (size_t)ceil_div(cols, 8) * 16; }
struct factor product_rounded(const struct tensor &t, int64_t outputs, void *to); // matmul.cu

#endif
