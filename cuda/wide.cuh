// wide.cuh: products of PRECISION_F32 with weights of block formats, on tensor cores that multiply bytes. matmul_blocks.cu says what
// the sums are and which kernel runs; here is what all of them are made of: x in sixteen bits, the product of a unit, and
// the tiles of few rows, which products alone, several at once and gated units share.
#ifndef LEHR_CUDA_WIDE_CUH
#define LEHR_CUDA_WIDE_CUH

#include "cuda/matmul_blocks.cuh"
#include "cuda/rows.cuh"

// ---------------------------------------------------------------------------------------------------------------
// x in sixteen bits. A row: for each unit of 128 columns 256 bytes, then for each unit four steps, then the sums of its groups of
// 32 columns, then of its groups of 16, so that weights of all formats read the same row. The bytes of a unit are
// [2 pairs of chunks][high, low][4 lanes][2 chunks][2 words]: 16 to a lane.

enum { SIXTEEN_BITS = 32512, UNIT_BYTES = 256, STEP_BYTES = 16, WIDE_ROWS = 15 }; // so many rows more have place behind the last

static __host__ __device__ __forceinline__ int sum_bytes(int group) { return UNIT / group * 4; } // of a unit
// Where in a row of so many units the sums of these groups begin; the row ends behind those of 16.
static __host__ __device__ __forceinline__ size_t sums_at(int units, int group) {
    return (size_t)units * (size_t)(UNIT_BYTES + STEP_BYTES + (group == 16 ? sum_bytes(32) : 0));
}
static inline size_t wide_bytes(int64_t cols) { return sums_at(coded_units(cols), 16) + (size_t)(coded_units(cols) * sum_bytes(16)); }

// Columns c..c+3 of a row, by a thread; eight neighbours are a chunk, and whole warps take part. to: the row; NULL: there is none.
static __device__ __forceinline__ void widen_four(char *to, int units, int64_t c, const float v[QUAD]) {
    uint32_t most = 0; // magnitudes of floats are in the order of their bits, NaN above all
    for (int k = 0; k < QUAD; k++) most = max(most, __float_as_uint(v[k]) & 0x7fffffffu);
    for (int far = 1; far < 8; far *= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, far));
    const float largest = __uint_as_float(most);
    const bool finite = most < 0x7f800000u, some = finite && largest >= 1e-30f;
    const float inverse = some ? __fdiv_rn(SIXTEEN_BITS, largest) : 0;
    const float step = !finite ? __uint_as_float(0x7fc00000u) : some ? __fdiv_rn(largest, SIXTEEN_BITS) : 0;
    uint32_t high = 0, low = 0;
    int sum = 0;
    for (int k = 0; k < QUAD; k++) {
        const int q = some ? __float2int_rn(__fmul_rn(v[k], inverse)) : 0, h = (q + 128) >> 8;
        high |= (uint32_t)(h & 255) << 8 * k, low |= (uint32_t)(q & 255) << 8 * k;
        sum += q;
    }
    for (int far = 1; far < 4; far *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, far);
    const int both = sum + __shfl_xor_sync(0xffffffffu, sum, 4);
    if (!to) return;
    const int u = (int)(c / UNIT), chunk = (int)(c % UNIT / CHUNK), h = (int)(c % CHUNK / 16), t = (int)(c % 16 / 4);
    uint32_t *codes = (uint32_t *)(to + (size_t)u * UNIT_BYTES + chunk / 2 * 128 + t * 16 + chunk % 2 * 8 + h * 4);
    codes[0] = high, codes[64 / 4] = low;
    if (c % 16 == 0) ((float *)(to + sums_at(units, 16)))[c / 16] = __fmul_rn(step, (float)sum);
    if (c % CHUNK) return;
    ((float *)(to + (size_t)units * UNIT_BYTES))[c / CHUNK] = step;
    ((float *)(to + sums_at(units, 32)))[c / CHUNK] = __fmul_rn(step, (float)both);
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
            const int row = (int)first + 16 * m + 8 * l + lane / 4;
            to->at[m][l] = w.data + (size_t)min(row, (int)w.rows - 1) * w.row_bytes;
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
// Few rows of x. Warps of a block of threads take blocks of 256 columns by turns and leave their sums in shared memory, where one
// thread for each output adds them in order; when there are more columns than there is room for, in several rounds. There are as
// many warps as take equal turns.
//
// As many warps as leave registers enough: 64, 128 and 168 a thread.
//
// Under way: a warp asks for 16 rows by 256 columns at once, 2304 bytes of Q4_K. 64 registers let a multiprocessor have 32 such
// warps: 72 KB, three times what an H200 needs for 4.8 TB/s (25 KB); of the 4096 x 4096 of a projection alone, 256 blocks of 16
// warps, that is all there is to read at once. A small weight has few warps a block, but as many of them in all.

enum { FEW_ROOM = 40 << 10 };
template <int MT, int NT> struct few_shape {
    enum {
        ROWS = QUAD * NT, COLS = 16 * MT, OUTPUTS = ROWS * COLS, WARPS = MT == 1 ? 16 : NT == 2 ? 8 : 6, THREADS = WARPS * (int)WARP,
        LINE = COLS + 8, PART = ROWS * LINE, // numbers that a warp leaves: so that its lanes find no bank twice
    };
};
// A tile is of one or more sets of COLS rows of weights. What it does with how many blocks of 256 columns at once.
struct few_turns {
    int at_once, threads;
    size_t bytes;
};
template <int MT, int NT> static inline struct few_turns few_turns(int units, int sets) {
    typedef few_shape<MT, NT> S;
    const int blocks = (units + 1) / 2, fit = max(1, (int)(FEW_ROOM / (sets * S::PART * sizeof(float)))), rounds = (int)ceil_div(blocks, fit);
    const int at_once = (int)ceil_div(blocks, rounds), tasks = at_once * sets, turns = (int)ceil_div(tasks, S::WARPS);
    return (struct few_turns){at_once, (int)ceil_div(tasks, turns) * (int)WARP, (size_t)(sets * (at_once * S::PART + S::OUTPUTS)) * sizeof(float)};
}

// The sums of rows [row, end) of x, at most ROWS: [set][row of x][row of the weight] in shared memory, where every thread sees them.
// Set s is of the weight first, and those from `half` on of second; of rows col + s COLS, counted from 0 for second again.
template <enum dtype D, int MT, int NT>
static __device__ __forceinline__ float *few_sums(const struct packed &first, const char *second, int half, int sets, int at_once, const struct wide &x, int row, int end,
                                                  int col) {
    typedef few_shape<MT, NT> S;
    SHARED_REST(float, total);
    float *const part = total + sets * S::OUTPUTS;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    const int blocks = (x.units + 1) / 2;
    // Of four rows that are not there is the last one again; of more, which are read behind the end, there is place (WIDE_ROWS).
    const int most = NT == 1 ? min(end - row, (int)QUAD) - 1 : QUAD - 1;
    const char *const codes = x.data + (size_t)(row + min(lane / 8, most)) * x.row_bytes + lane / 4 % 2 * 64 + lane % 4 * 16;
    const char *const steps = x.data + (size_t)(row + min(lane % 4, most)) * x.row_bytes;
    struct seen<NT> at;
    UNROLL
    for (int n = 0; n < NT; n++) at.code_at[n] = at.step_at[n] = at.sum_at[n] = QUAD * n * (int)x.row_bytes;
    for (int from = 0; from < blocks; from += at_once) {
        const int here = min(blocks - from, at_once);
        UNROLL_NOT
        for (int task = warp; task < here * sets; task += warps) {
            const int set = sets == 1 ? 0 : task / here, b = from + task - set * here; // sets is a constant, if 1
            struct packed w = first;
            if (set >= half) w.data = second;
            struct packed_rows<MT> rows;
            packed_at<MT>(&rows, w, col + (set >= half ? set - half : set) * S::COLS);
            float sums[MT][NT][2];
            UNROLL
            for (int m = 0; m < MT; m++)
                UNROLL
                for (int n = 0; n < NT; n++) sums[m][n][0] = sums[m][n][1] = 0;
            UNROLL
            for (int side = 0; side < 2; side++) {
                const int u = 2 * b + side;
                if (u >= x.units) continue; // all alike
                struct unit unit[MT][2];
                packed_load<D, MT>(unit, rows, x.units, u);
                at.codes = codes + u * UNIT_BYTES;
                at.steps = steps + x.units * UNIT_BYTES + u * STEP_BYTES;
                at.sums = steps + sums_at(x.units, coded_group(D)) + u * sum_bytes(coded_group(D));
                unit_multiply<D, MT, NT>(sums, unit, u, x.chunks, at);
            }
            float *to = part + task * S::PART + lane % 4 * S::LINE + lane / 4;
            UNROLL
            for (int m = 0; m < MT; m++)
                UNROLL
                for (int n = 0; n < NT; n++)
                    UNROLL
                    for (int l = 0; l < 2; l++) to[QUAD * n * S::LINE + 16 * m + 8 * l] = sums[m][n][l];
        }
        __syncthreads();
        for (int o = (int)threadIdx.x; o < sets * S::OUTPUTS; o += (int)blockDim.x) {
            const float *p = part + o / S::OUTPUTS * here * S::PART + o % S::OUTPUTS / S::COLS * S::LINE + o % S::COLS;
            float sum = from ? total[o] : 0;
            for (int b = 0; b < here; b++) sum += p[b * S::PART];
            total[o] = sum;
        }
        __syncthreads();
    }
    return total;
}
// The sums of one weight where they belong.
template <class S>
static __device__ __forceinline__ void few_put(const struct product_out &out, const float *sums, int row, int end, int col) {
    for (int o = (int)threadIdx.x; o < S::OUTPUTS; o += (int)blockDim.x)
        if (row + o / S::COLS < end) product_put(out, row + o / S::COLS, col + o % S::COLS, sums[o]);
}

// The kernel few<D, MT, NT> for so many rows of x.
#define BY_FEW_ROWS(rows, few, ...)                             \
    do {                                                        \
        if ((rows) <= QUAD) few<D, 1, 1>(__VA_ARGS__);          \
        else if ((rows) <= 2 * QUAD) few<D, 2, 2>(__VA_ARGS__); \
        else few<D, 2, 4>(__VA_ARGS__);                         \
    } while (0)
#endif
