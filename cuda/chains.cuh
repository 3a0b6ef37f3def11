// chains.cuh: products of PRECISION_F32: chains of fused multiply-adds over blocks of 256 terms, each from zero, block sums added
// in order. Two engines of product.cuh with the same bits:
//
//   chains  many rows: tiles of both factors in shared memory, a patch of outputs for each thread, a chain and a sum for each
//   few     up to 16 rows, decoding: all there is to do is to read the weights once. A chain cannot be cut, but a row has
//           K / 256 of them: eight lanes run the chains of eight neighbouring blocks of 256 at the same time and hand their sums
//           around in order. What they need, 32 terms of each block, comes through shared memory, whole sectors at a time.
//
// Terms behind the end are zeros on both sides. That changes no bit: a chain keeps its value, but for the sign of a zero, and
// the sum it is added to, which began as +0, is never -0.
#ifndef LEHR_CUDA_CHAINS_CUH
#define LEHR_CUDA_CHAINS_CUH

#include "cuda/product.cuh"

enum { CHAIN_TERMS = 256 };

// Number i of 16 bytes.
template <enum dtype D> static __device__ __forceinline__ float number_of(const uint4 &v, int i) {
    const uint32_t *u = &v.x;
    if (D == DTYPE_F32) return __uint_as_float(u[i]);
    if (D == DTYPE_BF16) return __uint_as_float(i % 2 ? u[i / 2] & 0xffff0000u : u[i / 2] << 16);
    return from_f16((uint16_t)(i % 2 ? u[i / 2] >> 16 : u[i / 2]));
}

// ---------------------------------------------------------------------------------------------------------------
// Many rows. A tile lies in shared memory as [term][output], TERMS at a time; the next one is under way in registers meanwhile.

// Takes four numbers at a time: rows of memory are rows of outputs, or of terms (ACROSS).
template <enum dtype D, bool ACROSS> struct own_numbers {
    enum { BYTES = D == DTYPE_F32 ? 4 : 2, WORDS = BYTES };
    template <int ROWS, int TERMS, int THREADS> struct held { uint32_t of[ROWS * TERMS / 4 / THREADS][WORDS]; };
    template <int ROWS, int TERMS, int THREADS>
    static __device__ __forceinline__ void fetch(held<ROWS, TERMS, THREADS> &h, const struct factor &f, int64_t row, int64_t k,
                                                 int64_t end) {
        enum { PER_LINE = ACROSS ? ROWS / 4 : TERMS / 4 };
        enum { EACH = THREADS / PER_LINE };
        const int64_t line = (ACROSS ? k : row) + (int)threadIdx.x / PER_LINE;
        const int64_t place = (ACROSS ? row : k) + (int)threadIdx.x % PER_LINE * 4;
        const int numbers_left = at_most((ACROSS ? f.rows : end) - place);
        int lines_left = at_most((ACROSS ? end : f.rows) - line);
        size_t step = f.row_bytes * EACH;
        keep_here(step), keep_here(lines_left);
        const char *from = f.data + (size_t)line * f.row_bytes + (size_t)place * BYTES;
        UNROLL
        for (int i = 0; i < ROWS * TERMS / 4 / THREADS; i++, from += step) {
            const int left = i * EACH < lines_left ? numbers_left : 0;
            UNROLL
            for (int w = 0; w < WORDS; w++) h.of[i][w] = 0;
            if (f.wide) {
                if (left > 0 && D == DTYPE_F32) {
                    const uint4 four = *(const uint4 *)(const void *)from;
                    h.of[i][0] = four.x, h.of[i][1] = four.y, h.of[i][WORDS - 2] = four.z, h.of[i][WORDS - 1] = four.w;
                } else if (left > 0) {
                    const uint2 four = *(const uint2 *)(const void *)from;
                    h.of[i][0] = four.x, h.of[i][1] = four.y;
                }
            } else {
                UNROLL
                for (int j = 0; j < 4; j++) {
                    if (j >= left) continue;
                    if (D == DTYPE_F32) h.of[i][j % WORDS] = ((const uint32_t *)(const void *)from)[j];
                    else h.of[i][j / 2] |= (uint32_t)((const uint16_t *)(const void *)from)[j] << 16 * (j % 2);
                }
            }
        }
    }
    template <int ROWS, int TERMS, int THREADS>
    static __device__ __forceinline__ void store(const held<ROWS, TERMS, THREADS> &h, float *tile, int line_numbers) {
        enum { PER_LINE = ACROSS ? ROWS / 4 : TERMS / 4 };
        UNROLL
        for (int i = 0; i < ROWS * TERMS / 4 / THREADS; i++) {
            const int at = i * THREADS + (int)threadIdx.x, line = at / PER_LINE, place = at % PER_LINE * 4;
            const uint4 raw = make_uint4(h.of[i][0], h.of[i][1], h.of[i][WORDS - 2], h.of[i][WORDS - 1]);
            const float4 v = make_float4(number_of<D>(raw, 0), number_of<D>(raw, 1), number_of<D>(raw, 2), number_of<D>(raw, 3));
            if (ACROSS) {
                *(float4 *)(void *)(tile + line * line_numbers + place) = v;
                continue;
            }
            tile += place * line_numbers + line;
            tile[0] = v.x, tile[line_numbers] = v.y, tile[2 * line_numbers] = v.z, tile[3 * line_numbers] = v.w;
            tile -= place * line_numbers + line;
        }
    }
};

// A thread has FOURS x FOURS patches of 4 x 4 outputs, 32 rows or 64 columns apart.
template <int FOURS, class Rows, class Cols> struct chains {
    enum {
        ROWS = 32 * FOURS, COLS = 64 * FOURS, THREADS = 128, BLOCKS = FOURS == 2 ? 2 : 4, TERMS = 16,
        IN_CHAIN = CHAIN_TERMS / TERMS, SIDE = 4 * FOURS,
        ROWS_LINE = ROWS + 4, COLS_LINE = COLS + 4, // so that the four terms of a load fall into other banks
        COLS_AT = TERMS * ROWS_LINE, STAGE = COLS_AT + TERMS * COLS_LINE, BYTES = 2 * STAGE * 4,
    };
    struct sums { float at[SIDE][SIDE]; };
    static __device__ __forceinline__ int first_row(void) { return ((int)threadIdx.x / 64 * 4 + (int)threadIdx.x % WARP / 8) * 4; }
    static __device__ __forceinline__ int first_col(void) { return ((int)threadIdx.x / WARP % 2 * 8 + (int)threadIdx.x % 8) * 4; }
    static __device__ __forceinline__ void zero(sums &s) {
        UNROLL
        for (int i = 0; i < SIDE; i++)
            UNROLL
            for (int j = 0; j < SIDE; j++) s.at[i][j] = 0;
    }
    // One term after the other of a tile.
    static __device__ __forceinline__ void run(sums &chain, const float *tile) {
        UNROLL
        for (int t = 0; t < TERMS; t++) {
            float4 row[FOURS], col[FOURS];
            UNROLL
            for (int f = 0; f < FOURS; f++) {
                row[f] = *(const float4 *)(const void *)(tile + t * ROWS_LINE + first_row() + 32 * f);
                col[f] = *(const float4 *)(const void *)(tile + COLS_AT + t * COLS_LINE + first_col() + 64 * f);
            }
            UNROLL
            for (int i = 0; i < SIDE; i++)
                UNROLL
                for (int j = 0; j < SIDE; j++)
                    chain.at[i][j] = __fmaf_rn((&row[i / 4].x)[i % 4], (&col[j / 4].x)[j % 4], chain.at[i][j]);
        }
    }
    static __device__ __forceinline__ void end_chain(sums &s, sums &chain) {
        UNROLL
        for (int i = 0; i < SIDE; i++)
            UNROLL
            for (int j = 0; j < SIDE; j++) s.at[i][j] = __fadd_rn(s.at[i][j], chain.at[i][j]), chain.at[i][j] = 0;
    }
    static __device__ __forceinline__ void add(sums &s, void *room, const struct factor &rows, int64_t row,
                                               const struct factor &cols, int64_t col, int64_t k, int64_t end) {
        typename Rows::template held<ROWS, TERMS, THREADS> rows_held;
        typename Cols::template held<COLS, TERMS, THREADS> cols_held;
        float *tile = (float *)room;
        const int count = (int)ceil_div(end - k, TERMS);
        sums chain;
        zero(chain);
        UNROLL_NOT
        for (int t = -1; t < count; t++) {
            float *here = tile + (t & 1) * STAGE, *next = tile + ((t + 1) & 1) * STAGE;
            const int64_t next_k = k + (int64_t)(t + 1) * TERMS;
            __syncthreads(); // tile t is there, and everybody has done with tile t - 1, whose place the next one takes
            if (t + 1 < count) {
                Rows::template fetch<ROWS, TERMS, THREADS>(rows_held, rows, row, next_k, end);
                Cols::template fetch<COLS, TERMS, THREADS>(cols_held, cols, col, next_k, end);
            }
            if (t >= 0) run(chain, here);
            if (t % IN_CHAIN == IN_CHAIN - 1) end_chain(s, chain);
            if (t + 1 < count) {
                Rows::template store<ROWS, TERMS, THREADS>(rows_held, next, ROWS_LINE);
                Cols::template store<COLS, TERMS, THREADS>(cols_held, next + COLS_AT, COLS_LINE);
            }
        }
        if (count % IN_CHAIN) end_chain(s, chain);
    }
    static __device__ __forceinline__ void put(const sums &s, const struct product_out &out, int64_t row, int64_t col) {
        UNROLL
        for (int i = 0; i < SIDE; i++)
            UNROLL
            for (int j = 0; j < SIDE; j += 2)
                product_put_two(out, row + first_row() + i / 4 * 32 + i % 4, col + first_col() + j / 4 * 64 + j % 4, s.at[i][j],
                                s.at[i][j + 1]);
    }
};

// ---------------------------------------------------------------------------------------------------------------
// Few rows: N of them, and R of the outputs for each of 16 groups of eight lanes. Lane b of a group runs the chain of block b of
// the eight. A stage is PIECE terms of each of the eight blocks, for all outputs and rows of the thread block: 128 bytes of the
// weights where that leaves room for the rows. A piece is chunks of 16 bytes, placed so that eight lanes which read the same chunk
// of their blocks find no bank twice.
// Shared memory stays within 64 KiB, which every GPU has; on a Hopper two blocks a multiprocessor have 50 KiB or more under way,
// more than the 25 KiB that 4.8 TB/s and 700 ns ask for.
template <enum dtype D, int N, int R> struct few {
    enum {
        ROWS = N, COLS = 16 * R, THREADS = 128, BLOCKS = N * R > 16 ? 3 : 4, LANES = 8,
        PIECE = D != DTYPE_F32 && N <= 2 ? 64 : 32, IN_CHAIN = CHAIN_TERMS / PIECE, WHOLE = LANES * CHAIN_TERMS,
        BYTES_EACH = D == DTYPE_F32 ? 4 : 2, IN_CHUNK = 16 / BYTES_EACH, CHUNKS = PIECE / IN_CHUNK, X_CHUNKS = PIECE / 4,
        X_AT = COLS * LANES * CHUNKS, STAGE = X_AT + N * LANES * X_CHUNKS, // chunks
        FIT = 65536 / 16 / STAGE, STAGES = FIT > 4 ? 4 : FIT, BYTES = STAGES * STAGE * 16,
    };
    static_assert(STAGES >= 2, "what comes next must be under way");
    struct sums { float at[R][N]; };
    static __device__ __forceinline__ int first_col(void) { return (int)threadIdx.x / LANES * R; }
    static __device__ __forceinline__ void zero(sums &s) {
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int i = 0; i < N; i++) s.at[r][i] = 0;
    }
    template <int PER>
    static __device__ __forceinline__ int swizzled(int chunk, int block) { return chunk ^ (PER < 8 ? block * PER / 8 : block); }
    // COUNT lines of one factor: chunk c of block b of line i to ((i LANES + b) PER + c, swizzled).
    template <int COUNT, int NUMBER_BYTES>
    static __device__ __forceinline__ void fetch(uint4 *to, const struct factor &f, int64_t row, int64_t k, int64_t end) {
        enum { PER = PIECE * NUMBER_BYTES / 16, LINE = LANES * PER, EACH = THREADS / LINE };
        const int chunk = (int)threadIdx.x % PER, block = (int)threadIdx.x / PER % LANES, line = (int)threadIdx.x / LINE;
        const int64_t place = k + block * (int)CHAIN_TERMS + chunk * (16 / NUMBER_BYTES);
        const char *from = f.data + (size_t)(row + line) * f.row_bytes + (size_t)place * NUMBER_BYTES;
        const int left = at_most(end - place);
        int rows_left = at_most(f.rows - row);
        size_t step = f.row_bytes * EACH;
        keep_here(rows_left), keep_here(step);
        to += line * LINE + block * PER + swizzled<PER>(chunk, block);
        UNROLL
        for (int i = 0; i < COUNT; i += EACH, from += step, to += EACH * LINE) {
            if (i + EACH > COUNT && i + line >= COUNT) continue;
            const int here = i + line < rows_left ? left : 0;
            if (f.wide) cp_async16(to, from, here > 0);
            else *to = sixteen_read<NUMBER_BYTES>(from, here, false);
        }
    }
    // PIECE terms of every chain.
    static __device__ __forceinline__ void run(sums &chain, const uint4 *stage) {
        const int block = (int)threadIdx.x % LANES;
        const uint4 *w = stage + (first_col() * LANES + block) * CHUNKS, *x = stage + X_AT + block * X_CHUNKS;
        UNROLL
        for (int c = 0; c < CHUNKS; c++) {
            uint4 codes[R];
            UNROLL
            for (int r = 0; r < R; r++) codes[r] = w[r * LANES * CHUNKS + swizzled<CHUNKS>(c, block)];
            UNROLL
            for (int q = 0; q < IN_CHUNK / 4; q++)
                UNROLL
                for (int i = 0; i < N; i++) {
                    const uint4 four = x[i * LANES * X_CHUNKS + swizzled<X_CHUNKS>(c * (IN_CHUNK / 4) + q, block)];
                    UNROLL
                    for (int r = 0; r < R; r++)
                        UNROLL
                        for (int j = 0; j < 4; j++)
                            chain.at[r][i] = __fmaf_rn(number_of<DTYPE_F32>(four, j), number_of<D>(codes[r], 4 * q + j),
                                                       chain.at[r][i]);
                }
        }
    }
    // The chains of eight blocks onto the sums, in order; every lane of a group has the sums.
    static __device__ __forceinline__ void end_chain(sums &s, sums &chain) {
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int i = 0; i < N; i++) {
                UNROLL
                for (int b = 0; b < LANES; b++)
                    s.at[r][i] = __fadd_rn(s.at[r][i], __shfl_sync(0xffffffffu, chain.at[r][i], b, LANES));
                chain.at[r][i] = 0;
            }
    }
    static __device__ __forceinline__ int64_t stage_k(int t) { return (int64_t)(t / IN_CHAIN) * WHOLE + t % IN_CHAIN * PIECE; }
    static __device__ __forceinline__ void add(sums &s, void *room, const struct factor &x, int64_t row, const struct factor &w,
                                               int64_t col, int64_t k, int64_t end) {
        uint4 *stages = (uint4 *)room;
        const int64_t terms = end - k;
        const int count = (int)(terms / WHOLE * IN_CHAIN + min((int64_t)IN_CHAIN, ceil_div(terms % WHOLE, PIECE)));
        sums chain;
        zero(chain);
        UNROLL_NOT
        for (int t = 1 - STAGES, slot = 0; t < count; t++) { // slot: of stage t + STAGES - 1, the one that is brought
            cp_async_wait<STAGES - 2>();
            __syncthreads(); // stage t is there, and everybody has done with stage t - 1, whose place the next one takes
            const int next = t + STAGES - 1;
            uint4 *to = stages + slot * STAGE;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
            if (next < count) {
                fetch<COLS, BYTES_EACH>(to, w, col, k + stage_k(next), end);
                fetch<N, 4>(to + X_AT, x, row, k + stage_k(next), end);
            }
            cp_async_commit();
            if (t < 0) continue;
            run(chain, stages + slot * STAGE);
            if (t % IN_CHAIN == IN_CHAIN - 1 || t + 1 == count) end_chain(s, chain);
        }
        cp_async_wait<0>();
        __syncthreads();
    }
    static __device__ __forceinline__ void put(const sums &s, const struct product_out &out, int64_t row, int64_t col) {
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int i = 0; i < N; i++)
                if ((r * N + i) % LANES == (int)threadIdx.x % LANES) product_put(out, row + i, col + first_col() + r, s.at[r][i]);
    }
};

template <enum dtype D> constexpr int FEW_R = D == DTYPE_F32 ? 1 : 2; // with 8 rows or more: what fits

// ---------------------------------------------------------------------------------------------------------------
// Launches. Which size of tile shows in no bit: the larger one where there is enough of it for every multiprocessor.

static inline bool chains_large(int64_t rows, int64_t cols) { return ceil_div(rows, 64) * ceil_div(cols, 128) >= cuda_processors(); }
template <class Rows, class Cols>
static inline void chains_start(const struct product_out &out, const struct factor &rows, const struct factor &cols, int64_t K) {
    if (chains_large(out.rows, out.cols)) product_start<chains<2, Rows, Cols>>(out, rows, cols, K);
    else product_start<chains<1, Rows, Cols>>(out, rows, cols, K);
}
#endif
