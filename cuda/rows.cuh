// rows.cuh: two ways to go over rows of f32, for the ops that are bound by memory.
//
// Number by number: a thread has four neighbouring numbers of a row, a quad. It moves them 16 bytes at a time where every tensor
// allows that (wide), else one by one; the arithmetic between is the same instructions either way, so where a row happens to lie
// shows in no bit. Tensors without gaps between rows are one long row.
//
// Row by row: a team of 1, 4 or 16 warps has a row and goes over it more than once; what it read first is in the L1 cache when it
// comes back. How many warps depends on the number of columns alone, and so does the order of every sum (rule 2 of backend.h).
//
// A multiprocessor of an H200 needs some 25 KB under way to read at full speed (4.8 TB/s, 700 ns, 132 of them): a quad in each of
// 2048 threads is 32 KB.
#ifndef LEHR_CUDA_ROWS_CUH
#define LEHR_CUDA_ROWS_CUH

#include "cuda/cuda.cuh"

enum { THREADS = 256, QUAD = 4 };

// ---------------------------------------------------------------------------------------------------------------
// Quads.

struct quad { float v[QUAD]; };

// left: so many numbers of the row are there from p on, none if negative. Those that are not there are 0.
static __device__ __forceinline__ struct quad quad_load(const float *p, int64_t left, bool wide) {
    struct quad q;
    if (wide && left >= QUAD) {
        const float4 f = *(const float4 *)(const void *)p;
        q.v[0] = f.x, q.v[1] = f.y, q.v[2] = f.z, q.v[3] = f.w;
    } else {
#pragma unroll
        for (int j = 0; j < QUAD; j++) q.v[j] = j < left ? p[j] : 0;
    }
    return q;
}
static __device__ __forceinline__ void quad_store(float *p, struct quad q, int64_t left, bool wide) {
    if (wide && left >= QUAD) {
        *(float4 *)(void *)p = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
    } else {
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            if (j < left) p[j] = q.v[j];
    }
}
// N quads of a row, `step` numbers apart from c on. No load waits for another, which a compiler does not see to when each comes
// with a branch of its own; wide here also says that cols is a multiple of QUAD.
template <int N>
static __device__ __forceinline__ void quads_load(struct quad q[N], const float *row, int64_t c, int64_t step, int64_t cols, bool wide) {
#pragma unroll
    for (int n = 0; n < N; n++) q[n] = (struct quad){{0, 0, 0, 0}};
    if (wide) {
#pragma unroll
        for (int n = 0; n < N; n++)
            if (c + n * step < cols) q[n] = quad_load(row + c + n * step, QUAD, true);
    } else {
#pragma unroll
        for (int n = 0; n < N; n++) q[n] = quad_load(row + c + n * step, cols - c - n * step, false);
    }
}
static __device__ __forceinline__ struct quad quad_of(float x) { return (struct quad){{x, x, x, x}}; }
// The sum of four products, in f32: what goes into a sum in double, so that one in four numbers pays for it.
static __device__ __forceinline__ float quad_dot(struct quad a, struct quad b) {
    return fmaf(a.v[3], b.v[3], fmaf(a.v[2], b.v[2], fmaf(a.v[1], b.v[1], __fmul_rn(a.v[0], b.v[0]))));
}

// Tensors that lie without gaps may be seen as one row. An absent one is whatever the others are.
static inline bool has_no_gaps(const struct tensor &t) { return t.rows <= 1 || t.row_bytes == (size_t)t.cols * sizeof(float); }
static inline struct tensor as_one_row(struct tensor t) {
    t.cols *= t.rows;
    t.rows = 1;
    return t;
}

// A launch of a thread for each quad: a block has a stretch of one row, or of several short ones.
static inline dim3 quad_block(int64_t rows, int64_t cols) {
    const int64_t quads = ceil_div(cols, QUAD);
    int across = 1, down;
    while (across < WARP && across < quads) across *= 2;
    while (across < THREADS && across < quads) across += WARP;
    down = THREADS / across;
    while (down > 1 && down / 2 >= rows && down / 2 * across >= WARP) down /= 2;
    return dim3((unsigned)across, (unsigned)down);
}
static inline dim3 quad_grid(int64_t rows, int64_t cols) {
    const dim3 block = quad_block(rows, cols);
    const int64_t down = ceil_div(rows, block.y);
    return dim3((unsigned)ceil_div(ceil_div(cols, QUAD), block.x), (unsigned)(down < 65535 ? down : 65535));
}
// For all numbers of `shape`.
#define LAUNCH_QUADS(kernel, shape, ...) \
    LAUNCH(kernel, quad_grid((shape).rows, (shape).cols), quad_block((shape).rows, (shape).cols), 0, __VA_ARGS__)
// In kernels so launched: for (row = quad_row(); row < rows; row += quad_rows()), and the column of the quad.
static __device__ __forceinline__ int64_t quad_column(void) { return ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * QUAD; }
static __device__ __forceinline__ int64_t quad_row(void) { return (int64_t)blockIdx.y * blockDim.y + threadIdx.y; }
static __device__ __forceinline__ int64_t quad_rows(void) { return (int64_t)gridDim.y * blockDim.y; }

// ---------------------------------------------------------------------------------------------------------------
// Teams. A team of one warp shares its block with seven others, a larger one is a block.

static __host__ __device__ constexpr int teams_a_block(int warps) { return warps == 1 ? 8 : 1; }
static inline int team_warps(int64_t cols) { return cols <= 512 ? 1 : cols <= 2048 ? 4 : 16; }
template <int WARPS> static __device__ __forceinline__ int team_thread(void) { return (int)threadIdx.x % (WARPS * WARP); }
template <int WARPS> static __device__ __forceinline__ int64_t team_number(void) {
    return (int64_t)blockIdx.x * teams_a_block(WARPS) + (int)threadIdx.x / (WARPS * WARP);
}
// The sum of a team's x, which every thread receives. `room` has WARPS values, and is not used again before another barrier.
template <int WARPS, class T> static __device__ __forceinline__ T team_sum(T x, T *room) {
    x = warp_sum(x);
    if (WARPS == 1) return x;
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    T sum = room[0];
#pragma unroll 3
    for (int w = 1; w < WARPS; w++) sum += room[w]; // all at once would take 32 registers
    return sum;
}
// kernel<1>, kernel<4> or kernel<16> with a team for each of `rows`.
#define LAUNCH_TEAMS_OF(kernel, warps, rows, bytes, ...) \
    LAUNCH((kernel<warps>), dim3((unsigned)ceil_div(rows, teams_a_block(warps))), warps * teams_a_block(warps) * WARP, bytes, __VA_ARGS__)
#define LAUNCH_TEAMS(kernel, cols, rows, bytes, ...)                        \
    switch (team_warps(cols)) {                                             \
    case 1: LAUNCH_TEAMS_OF(kernel, 1, rows, bytes, __VA_ARGS__); break;    \
    case 4: LAUNCH_TEAMS_OF(kernel, 4, rows, bytes, __VA_ARGS__); break;    \
    default: LAUNCH_TEAMS_OF(kernel, 16, rows, bytes, __VA_ARGS__); break;  \
    }
#endif
