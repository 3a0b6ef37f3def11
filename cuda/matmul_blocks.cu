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
//   few    16 or 32 rows of the weight and 4 to 16 of x to a block of threads; its warps take blocks of columns by turns, so that
//          a small weight, too, is read by all multiprocessors. A weight is read once, 16 bytes a lane, into registers and
//          nowhere else. One row of x costs what four do: about 150 instructions of a warp for 2048 weights, 1152 bytes of
//          Q4_K; an H200 reads these in 220 issue slots of a multiprocessor.
//   many   64 x 64 outputs, x in shared memory. Five operations in floats for each output and 32 columns are the limit: 128 a
//          cycle, so some 800 products a cycle and multiprocessor, six times what FMAs in f32 would do.
//
// PRECISION_BF16 is gemm.cuh, which a taker here gives tiles of packed rows; for many rows the weight becomes bf16 first, some MiB
// at a time, which stay in L2. Weights that lie as ROWS are packed into scratch first.
#include "cuda/matmul_blocks.cuh"

enum { THREADS = 256, QUAD = 4 }; // QUAD: rows of x in a product of fragments

// ---------------------------------------------------------------------------------------------------------------
// x in sixteen bits. A row: for each unit of 128 columns 256 bytes, then for each unit four steps, then the sums of its groups.
// The bytes of a unit are [2 pairs of chunks][high, low][4 lanes][2 chunks][2 words]: 16 to a lane.

enum { SIXTEEN_BITS = 32512, UNIT_BYTES = 256, STEP_BYTES = 16 };

struct wide {
    const char *data;
    size_t row_bytes;
    int units, chunks; // chunks of 32 columns that there are
};
static __host__ __device__ __forceinline__ int sum_bytes(int group) { return UNIT / group * 4; } // of a unit
static size_t wide_bytes(int64_t cols, int group) { return (size_t)coded_units(cols) * (size_t)(UNIT_BYTES + STEP_BYTES + sum_bytes(group)); }

// A thread for four columns; eight neighbours are a chunk.
template <int GROUP> __global__ void widen_kernel(struct tensor x, bool by_four, int units, char *to, size_t to_bytes) {
    const int64_t fours = (int64_t)units * (UNIT / 4), at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / fours, c = at % fours * 4;
    const bool here = i < x.rows && c < x.cols;
    float v[4] = {0, 0, 0, 0};
    if (here && by_four) {
        const float4 four = *(const float4 *)(row_f32(x, i) + c);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else if (here)
        for (int k = 0; k < 4; k++) v[k] = row_f32(x, i)[c + k];
    uint32_t most = 0; // magnitudes of floats are in the order of their bits, NaN above all
    for (int k = 0; k < 4; k++) most = max(most, __float_as_uint(v[k]) & 0x7fffffffu);
    for (int far = 1; far < 8; far *= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, far));
    const float largest = __uint_as_float(most);
    const bool finite = most < 0x7f800000u, some = finite && largest >= 1e-30f;
    const float inverse = some ? __fdiv_rn(SIXTEEN_BITS, largest) : 0;
    const float step = !finite ? __uint_as_float(0x7fc00000u) : some ? __fdiv_rn(largest, SIXTEEN_BITS) : 0;
    uint32_t high = 0, low = 0;
    int sum = 0;
    for (int k = 0; k < 4; k++) {
        const int q = some ? __float2int_rn(__fmul_rn(v[k], inverse)) : 0, h = (q + 128) >> 8;
        high |= (uint32_t)(h & 255) << 8 * k, low |= (uint32_t)(q & 255) << 8 * k;
        sum += q;
    }
    for (int far = 1; far < GROUP / 4; far *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, far);
    if (i >= x.rows) return;
    const int u = (int)(c / UNIT), chunk = (int)(c % UNIT / CHUNK), h = (int)(c % CHUNK / 16), t = (int)(c % 16 / 4);
    char *row = to + (size_t)i * to_bytes;
    uint32_t *codes = (uint32_t *)(row + (size_t)u * UNIT_BYTES + chunk / 2 * 128 + t * 16 + chunk % 2 * 8 + h * 4);
    codes[0] = high, codes[64 / 4] = low;
    row += (size_t)units * UNIT_BYTES;
    if (c % CHUNK == 0) ((float *)row)[u * CHUNKS + chunk] = step;
    row += (size_t)units * STEP_BYTES;
    if (c % GROUP == 0) ((float *)row)[c / GROUP] = __fmul_rn(step, (float)sum);
}

static struct wide widen(const struct tensor &x, int group) {
    const size_t row_bytes = wide_bytes(x.cols, group);
    const int units = coded_units(x.cols);
    char *to = (char *)cuda_scratch(SLOT_WHOLE, (size_t)x.rows * row_bytes);
    const int64_t blocks = ceil_div(x.rows * units * (UNIT / 4), THREADS);
    if (group == 16) LAUNCH((widen_kernel<16>), blocks, THREADS, 0, x, by_sixteen(x), units, to, row_bytes);
    else LAUNCH((widen_kernel<32>), blocks, THREADS, 0, x, by_sixteen(x), units, to, row_bytes);
    return (struct wide){to, row_bytes, units, (int)(x.cols / CHUNK)};
}

// ---------------------------------------------------------------------------------------------------------------
// A unit of MT x 16 rows of the weight by NT x 4 rows of x.

// Where a lane finds its part of a unit of x: codes of row lane / 8 of each four, steps and sums of row lane % 4.
template <int NT> struct seen {
    const char *codes, *steps, *sums;
    int code_at[NT], step_at[NT], sum_at[NT];
};

static __device__ __forceinline__ void add_group(float *sum, bool mins, float dl, float ml, float step, float offset, int high, int low) {
    const float dot = (float)(high * 256 + low);
    *sum = __fmaf_rn(dl, __fmul_rn(step, dot), *sum);
    if (mins) *sum = __fmaf_rn(ml, offset, *sum);
}

// sums[..][..][0] of weight row lane / 4, [1] of the one 8 below it, both by row lane % 4 of x.
template <enum dtype D, int MT, int NT>
static __device__ __forceinline__ void unit_multiply(float sums[MT][NT][2], const struct unit w[MT][2], int u, int chunks, const struct seen<NT> &x) {
    const int HALVES = coded_group(D) == 16 ? 2 : 1;
    UNROLL
    for (int c = 0; c < CHUNKS; c++) {
        if (!coded_scales(D) && u * CHUNKS + c >= chunks) break; // all alike
        uint4 codes[NT];
        UNROLL
        for (int n = 0; n < NT; n++) codes[n] = *(const uint4 *)(x.codes + x.code_at[n] + c / 2 * 128);
        UNROLL
        for (int m = 0; m < MT; m++) {
            uint32_t upper[2], lower[2];
            unit_words<D>(&w[m][0], c, upper), unit_words<D>(&w[m][1], c, lower);
            const uint32_t a[4] = {upper[0], lower[0], upper[1], lower[1]};
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                const int g = c * HALVES + h;
                float dl[2], ml[2];
                unit_factor<D>(&w[m][0], u, g, &dl[0], &ml[0]), unit_factor<D>(&w[m][1], u, g, &dl[1], &ml[1]);
                UNROLL
                for (int n = 0; n < NT; n++) {
                    const uint32_t b[2] = {c % 2 ? codes[n].z : codes[n].x, c % 2 ? codes[n].w : codes[n].y};
                    int32_t d[4] = {0, 0, 0, 0};
                    if (HALVES == 1) mma_s8(d, a, b);
                    else mma_s8_16(d, a[2 * h], a[2 * h + 1], b[h]);
                    const float step = ((const float *)(x.steps + x.step_at[n]))[c];
                    const float offset = coded_mins(D) ? ((const float *)(x.sums + x.sum_at[n]))[g] : 0;
                    add_group(&sums[m][n][0], coded_mins(D), dl[0], ml[0], step, offset, d[0], d[1]);
                    add_group(&sums[m][n][1], coded_mins(D), dl[1], ml[1], step, offset, d[2], d[3]);
                }
            }
        }
    }
}

// A weight of block format, packed.
struct packed {
    const char *data;
    size_t row_bytes;
    int64_t rows;
};
// Rows first + lane / 4 and 8 below of each 16; what lies behind the last row reads it again, and is not written.
template <int MT> struct packed_rows {
    const char *at[MT][2];
};
template <int MT> static __device__ __forceinline__ void packed_at(struct packed_rows<MT> *to, const struct packed &w, int64_t first) {
    const int lane = (int)threadIdx.x % WARP;
    UNROLL
    for (int m = 0; m < MT; m++)
        UNROLL
        for (int l = 0; l < 2; l++) {
            const int64_t row = first + 16 * m + 8 * l + lane / 4;
            to->at[m][l] = w.data + (size_t)(row < w.rows ? row : w.rows - 1) * w.row_bytes;
        }
}
template <enum dtype D, int MT>
static __device__ __forceinline__ void packed_load(struct unit w[MT][2], const struct packed_rows<MT> &rows, int units, int u) {
    UNROLL
    for (int m = 0; m < MT; m++)
        UNROLL
        for (int l = 0; l < 2; l++) unit_load<D>(&w[m][l], rows.at[m][l], units, u, (int)threadIdx.x % 4);
}

// ---------------------------------------------------------------------------------------------------------------
// Few rows. Warps of a block of threads take blocks of 256 columns by turns and leave their sums in shared memory, where one
// thread for each output adds them in order; when there are more columns than there is room for, in several rounds. 16 warps for
// up to four rows, twice as many as later, are what keeps 40 KB on their way to each multiprocessor of an H200 with 4096 x 4096 Q4_K.

enum { FEW_ROOM = 48 << 10 };
template <int MT, int NT> struct few_shape {
    enum {
        ROWS = QUAD * NT, COLS = 16 * MT, OUTPUTS = ROWS * COLS, WARPS = MT == 1 ? 16 : 8, THREADS = WARPS * (int)WARP,
        EACH = (OUTPUTS + THREADS - 1) / THREADS, BLOCKS_AT_ONCE = FEW_ROOM / (OUTPUTS * 4),
    };
    static size_t bytes(int units) { return (size_t)min((units + 1) / 2, (int)BLOCKS_AT_ONCE) * OUTPUTS * sizeof(float); }
};

// Rows [row, end) of x, at most ROWS, by weight rows from `col` on.
template <enum dtype D, int MT, int NT>
static __device__ __forceinline__ void few_tile(struct product_out out, const struct packed &w, const struct wide &x, int64_t row, int64_t end, int64_t col) {
    typedef few_shape<MT, NT> S;
    SHARED_REST(float, part);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, blocks = (x.units + 1) / 2, left = (int)min(end - row, (int64_t)S::ROWS);
    const char *base = x.data + (size_t)row * x.row_bytes;
    struct packed_rows<MT> rows;
    packed_at<MT>(&rows, w, col);
    struct seen<NT> at;
    UNROLL
    for (int n = 0; n < NT; n++) { // rows that are not there are the last one again, and not written
        const int code_row = min(QUAD * n + lane / 8, left - 1), step_row = min(QUAD * n + lane % 4, left - 1);
        at.code_at[n] = code_row * (int)x.row_bytes + lane / 4 % 2 * 64 + lane % 4 * 16;
        at.step_at[n] = at.sum_at[n] = step_row * (int)x.row_bytes;
    }
    float total[S::EACH];
    UNROLL
    for (int i = 0; i < S::EACH; i++) total[i] = 0;
    for (int from = 0; from < blocks; from += S::BLOCKS_AT_ONCE) {
        const int upto = min(blocks, from + (int)S::BLOCKS_AT_ONCE);
        for (int b = from + warp; b < upto; b += S::WARPS) {
            float sums[MT][NT][2];
            UNROLL
            for (int m = 0; m < MT; m++)
                UNROLL
                for (int n = 0; n < NT; n++) sums[m][n][0] = sums[m][n][1] = 0;
            UNROLL
            for (int half = 0; half < 2; half++) {
                const int u = 2 * b + half;
                if (u >= x.units) continue; // all alike
                struct unit unit[MT][2];
                packed_load<D, MT>(unit, rows, x.units, u);
                at.codes = base + (size_t)u * UNIT_BYTES;
                at.steps = base + (size_t)x.units * UNIT_BYTES + (size_t)u * STEP_BYTES;
                at.sums = base + (size_t)x.units * (UNIT_BYTES + STEP_BYTES) + (size_t)(u * sum_bytes(coded_group(D)));
                unit_multiply<D, MT, NT>(sums, unit, u, x.chunks, at);
            }
            UNROLL
            for (int m = 0; m < MT; m++)
                UNROLL
                for (int n = 0; n < NT; n++)
                    UNROLL
                    for (int l = 0; l < 2; l++) part[(b - from) * S::OUTPUTS + (16 * m + 8 * l + lane / 4) * S::ROWS + QUAD * n + lane % 4] = sums[m][n][l];
        }
        __syncthreads();
        UNROLL
        for (int i = 0; i < S::EACH; i++) {
            const int o = (int)threadIdx.x + i * S::THREADS;
            for (int b = 0; o < S::OUTPUTS && b < upto - from; b++) total[i] += part[b * S::OUTPUTS + o];
        }
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < S::EACH; i++) {
        const int o = (int)threadIdx.x + i * S::THREADS, r = o % S::ROWS;
        if (o < S::OUTPUTS && r < left) product_put(out, row + r, col + o / S::ROWS, total[i]);
    }
}

template <enum dtype D, int MT, int NT>
__global__ void __launch_bounds__(few_shape<MT, NT>::THREADS, 2) few_kernel(struct product_out out, struct packed w, struct wide x) {
    typedef few_shape<MT, NT> S;
    few_tile<D, MT, NT>(out, w, x, (int64_t)blockIdx.y * S::ROWS, out.rows, (int64_t)blockIdx.x * S::COLS);
}
template <enum dtype D, int MT, int NT>
__global__ void __launch_bounds__(few_shape<MT, NT>::THREADS, 2) few_runs_kernel(struct product_out out, struct packed w, struct wide x, struct runs runs, const __grid_constant__ struct run_weights weights) {
    typedef few_shape<MT, NT> S;
    struct run run;
    if (!run_number(&run, runs, (int)blockIdx.y, S::ROWS)) return;
    w.data = weights.data[run.expert];
    few_tile<D, MT, NT>(out, w, x, run.row, run.end, (int64_t)blockIdx.x * S::COLS);
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
            from += (size_t)x.units * (UNIT_BYTES + STEP_BYTES) + (size_t)u * SUMS + (p - CODES - STEPS) * 16;
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

enum { FEW_MOST = 96 };

template <enum dtype D, int MT, int NT> static void few_start(const struct product_out &out, const struct packed &w, const struct wide &x) {
    typedef few_shape<MT, NT> S;
    LAUNCH((few_kernel<D, MT, NT>), dim3(ceil_div(out.cols, S::COLS), ceil_div(out.rows, S::ROWS)), S::THREADS, S::bytes(x.units), out, w, x);
}
template <enum dtype D> static void whole_product(const struct product_out &out, const struct packed &w, const struct wide &x) {
    if (out.rows <= QUAD) few_start<D, 1, 1>(out, w, x);
    else if (out.rows <= 2 * QUAD) few_start<D, 2, 2>(out, w, x);
    else if (out.rows <= FEW_MOST) few_start<D, 2, 4>(out, w, x);
    else
        LAUNCH((many_kernel<D>), ceil_div(out.rows, many_shape<D>::ROWS) * ceil_div(out.cols, MANY_COLS), MANY_THREADS, (size_t)(2 * many_stage<D>()), out, w, x);
}

template <enum dtype D, int MT, int NT>
static void few_runs_start(const struct product_out &out, const struct packed &w, const struct wide &x, const struct runs &runs, const struct run_weights &weights) {
    typedef few_shape<MT, NT> S;
    const dim3 grid(ceil_div(out.cols, S::COLS), runs_tiles(out.rows, runs.experts, S::ROWS));
    LAUNCH((few_runs_kernel<D, MT, NT>), grid, S::THREADS, S::bytes(x.units), out, w, x, runs, weights);
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
    const struct wide x = widen(a->x, coded_group(a->w.dtype));
    switch (a->w.dtype) {
#define PRODUCT_CASE(upper, lower) \
    case DTYPE_##upper: whole_product<DTYPE_##upper>(out, w, x); break;
        CODED_DTYPES(PRODUCT_CASE)
    default: assert(!"no block format");
    }
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
    if (!rounded) x = widen(a->x, coded_group(a->w->dtype));
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
