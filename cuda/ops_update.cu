// ops_update.cu: the sum of squares and the optimizers' rules.
//
// An update is number by number: 28 bytes of a parameter move for Adam and 2 more with a copy, which is the floor; a thread has a
// quad of each tensor, so 64 bytes are under way in each. Every product that feeds a sum is a fused multiply-add by name, so that a
// parameter has the same bits wherever its tensor lies.
//
// Adafactor needs means over rows and columns before it can move anything. What one kernel finds for all others (a mean, a rate)
// stays on the device.
#include "cuda/rows.cuh"

#include <float.h>

static bool is_flat(const struct tensor &t) { return t.data && is_f32(t) && has_no_gaps(t); }
static bool aligned(const struct tensor &t, uintptr_t bytes) { return (uintptr_t)t.data % bytes == 0; }
static bool fits(const struct tensor &t, const struct tensor &w) { return is_flat(t) && same_shape(t, w); }
static bool copy_fits(const struct tensor &t, const struct tensor &w) {
    return !t.data || (t.dtype == DTYPE_BF16 && same_shape(t, w) && (t.rows <= 1 || t.row_bytes == (size_t)t.cols * sizeof(uint16_t)));
}

// ---------------------------------------------------------------------------------------------------------------
// *out = sum of x^2 in double: a block has a chunk of 4096 numbers. The chunks' sums are added by one block, each thread every
// 256th from its own on, then the threads' in order: by one thread alone the 25,000 chunks of an embedding would take longer than
// reading it.

enum { SQUARES_CHUNK = 4096, AT_ONCE = THREADS * QUAD }; // numbers that the threads of a block have at once
__global__ void squares_kernel(const float *x, int64_t count, double *chunk, bool wide) {
    SHARED(double, room, WARP);
    constexpr int QUADS = SQUARES_CHUNK / AT_ONCE;
    struct quad q[QUADS];
    double sum = 0;
    quads_load<QUADS>(q, x, (int64_t)blockIdx.x * SQUARES_CHUNK + QUAD * (int)threadIdx.x, AT_ONCE, count, wide);
    for (int k = 0; k < QUADS * QUAD; k++) sum = fma((double)q[k / QUAD].v[k % QUAD], (double)q[k / QUAD].v[k % QUAD], sum);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) chunk[blockIdx.x] = sum;
}
__global__ void add_chunks_kernel(const double *chunk, int64_t chunks, double *out) {
    SHARED(double, room, WARP);
    double sum = 0;
#pragma unroll 8
    for (int64_t p = threadIdx.x; p < chunks; p += THREADS) sum += chunk[p];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *out = sum;
}
static void cuda_sum_squares(const struct sum_squares_args *a) {
    assert(is_flat(a->x) && a->out);
    const int64_t count = a->x.rows * a->x.cols, chunks = ceil_div(count, SQUARES_CHUNK);
    double *sums = (double *)cuda_scratch(SLOT_UPDATE, (size_t)chunks * sizeof(double));
    const float *x = (const float *)a->x.data;
    if (chunks > 0) LAUNCH((squares_kernel), dim3((unsigned)chunks), THREADS, 0, x, count, sums, aligned(a->x, 16) && count % QUAD == 0);
    LAUNCH((add_chunks_kernel), 1, THREADS, 0, sums, chunks, a->out);
}

// ---------------------------------------------------------------------------------------------------------------
// Rules.

struct update_step {
    struct update_args a;
    float mean, ahead, square; // 1 / (1 - beta1^t), the same of t + 1, and of beta2
    bool wide;
};
struct parameter { float w, m, v, x, out; };

template <int RULE> static __device__ __forceinline__ float direction(const struct update_step &u, float grad, struct parameter *p) {
    const float b1 = u.a.beta1, b2 = u.a.beta2, c1 = 1 - b1, c2 = 1 - b2;
    if (RULE == UPDATE_SGD) {
        if (!u.a.m.data) return grad;
        p->m = fmaf(b1, p->m, grad);
        return fmaf(b1, p->m, grad);
    }
    if (RULE == UPDATE_LION) {
        const float x = fmaf(b1, p->m, __fmul_rn(c1, grad));
        p->m = fmaf(b2, p->m, __fmul_rn(c2, grad));
        return x > 0 ? 1 : x < 0 ? -1 : 0;
    }
    p->v = fmaf(b2, p->v, __fmul_rn(__fmul_rn(c2, grad), grad));
    const float size = __fadd_rn(__fsqrt_rn(__fmul_rn(p->v, u.square)), u.a.eps);
    if (RULE == UPDATE_SCHEDULE_FREE) return __fdiv_rn(grad, size);
    p->m = fmaf(b1, p->m, __fmul_rn(c1, grad));
    if (RULE == UPDATE_ADAM) return __fdiv_rn(__fmul_rn(p->m, u.mean), size);
    return __fdiv_rn(fmaf(__fmul_rn(b1, p->m), u.ahead, __fmul_rn(__fmul_rn(c1, grad), u.mean)), size);
}
template <int RULE> static __device__ __forceinline__ void move(const struct update_step &u, float grad, struct parameter *p) {
    const float d = fmaf(u.a.weight_decay, p->w, direction<RULE>(u, grad, p));
    p->out = d;
    if (RULE == UPDATE_SCHEDULE_FREE) {
        p->m = fmaf(-u.a.lr, d, p->m);
        p->x = fmaf(u.a.mix, __fsub_rn(p->m, p->x), p->x);
        p->w = fmaf(1 - u.a.beta1, __fsub_rn(p->m, p->x), p->x);
    } else {
        p->w = fmaf(-u.a.lr, d, p->w);
    }
}

static __device__ __forceinline__ void copy_store(uint16_t *to, struct quad w, int64_t left, bool wide) {
    if (wide && left >= QUAD) {
        *(uint2 *)(void *)to = make_uint2(pack_bf16(w.v[0], w.v[1]), pack_bf16(w.v[2], w.v[3]));
        return;
    }
#pragma unroll
    for (int j = 0; j < QUAD; j++)
        if (j < left) to[j] = (uint16_t)pack_bf16(w.v[j], 0);
}
template <int RULE> __global__ void update_kernel(struct update_step u, int64_t count) {
    const int64_t i = quad_column(), left = count - i;
    if (left <= 0) return;
    const bool has_m = u.a.m.data, has_v = RULE == UPDATE_ADAM || RULE == UPDATE_NADAM || RULE == UPDATE_SCHEDULE_FREE;
    float *w_at = (float *)u.a.w.data + i, *m_at = (float *)u.a.m.data + i;
    float *v_at = (float *)u.a.v.data + i, *x_at = (float *)u.a.x.data + i;
    const struct quad g = quad_load((const float *)u.a.g.data + i, left, u.wide);
    struct quad w = quad_load(w_at, left, u.wide), m = quad_of(0), v = m, x = m, out;
    if (has_m) m = quad_load(m_at, left, u.wide);
    if (has_v) v = quad_load(v_at, left, u.wide);
    if (RULE == UPDATE_SCHEDULE_FREE) x = quad_load(x_at, left, u.wide);
    const float scale = one_if_zero(u.a.grad_scale);
    for (int j = 0; j < QUAD; j++) {
        struct parameter p = {w.v[j], m.v[j], v.v[j], x.v[j], 0};
        move<RULE>(u, __fmul_rn(g.v[j], scale), &p);
        w.v[j] = p.w, m.v[j] = p.m, v.v[j] = p.v, x.v[j] = p.x, out.v[j] = p.out;
    }
    if (has_m) quad_store(m_at, m, left, u.wide);
    if (has_v) quad_store(v_at, v, left, u.wide);
    if (u.a.out.data) {
        quad_store((float *)u.a.out.data + i, out, left, u.wide);
        return;
    }
    if (RULE == UPDATE_SCHEDULE_FREE) quad_store(x_at, x, left, u.wide);
    quad_store(w_at, w, left, u.wide);
    if (u.a.copy.data) copy_store((uint16_t *)u.a.copy.data + i, w, left, u.wide);
}

static void cuda_update(const struct update_args *a) {
    const bool average = a->rule == UPDATE_SCHEDULE_FREE, adam = a->rule == UPDATE_ADAM || a->rule == UPDATE_NADAM;
    assert(is_flat(a->w) && fits(a->g, a->w) && a->step >= 1 && copy_fits(a->copy, a->w));
    assert(fits(a->m, a->w) || (a->rule == UPDATE_SGD && !a->m.data));
    assert(!(adam || average) || fits(a->v, a->w));
    assert(!average || fits(a->x, a->w));
    assert(!a->out.data || (fits(a->out, a->w) && !average));
    const int64_t count = a->w.rows * a->w.cols;
    if (count == 0) return;
    const double t = (double)a->step, b1 = (double)a->beta1, b2 = (double)a->beta2;
    const bool wide = aligned(a->w, 16) && aligned(a->g, 16) && aligned(a->m, 16) && aligned(a->v, 16) && aligned(a->x, 16) &&
                      aligned(a->out, 16) && aligned(a->copy, 8);
    const float mean = (float)(1 / (1 - pow(b1, t))), ahead = (float)(1 / (1 - pow(b1, t + 1)));
    const float square = (float)(1 / (1 - pow(b2, t)));
    const struct update_step u = {*a, mean, ahead, square, wide};
    const dim3 grid = dim3((unsigned)ceil_div(count, AT_ONCE)), block = dim3(THREADS);
    switch (a->rule) {
    case UPDATE_ADAM: LAUNCH((update_kernel<UPDATE_ADAM>), grid, block, 0, u, count); break;
    case UPDATE_NADAM: LAUNCH((update_kernel<UPDATE_NADAM>), grid, block, 0, u, count); break;
    case UPDATE_LION: LAUNCH((update_kernel<UPDATE_LION>), grid, block, 0, u, count); break;
    case UPDATE_SGD: LAUNCH((update_kernel<UPDATE_SGD>), grid, block, 0, u, count); break;
    case UPDATE_SCHEDULE_FREE: LAUNCH((update_kernel<UPDATE_SCHEDULE_FREE>), grid, block, 0, u, count); break;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Adafactor. Sums are in double; what is done for each number is in f32.

enum { ROW_U, ROW_W, ROW_SUMS };               // sums of squares of a row, in the caller's scratch
enum { ALL_MEAN, ALL_RATE, ALL_SUMS };         // of all: the mean of the rows' averages; the rate of u
enum { COLUMN_ROWS = 256, COLUMN_THREADS = 8 }; // rows that one block adds up in columns
struct factored {
    struct adafactor_args a;
    double share;        // of the new in the averages
    double *all, *parts; // [ALL_SUMS]; sums of columns over blocks of rows
    float shrink;        // 1 - lr weight_decay
    bool wide;
};
static __device__ __forceinline__ const float *grad_row(const struct factored &f, int64_t r) {
    return (const float *)f.a.g.data + r * f.a.w.cols;
}

template <int WARPS> __global__ void row_means_kernel(struct factored f) {
    SHARED(double, room, WARPS);
    const int64_t r = team_number<WARPS>(), K = f.a.w.cols;
    if (r >= f.a.w.rows) return;
    const float *g = grad_row(f, r), scale = one_if_zero(f.a.grad_scale);
    double sum = 0;
    for (int64_t k = QUAD * team_thread<WARPS>(); k < K; k += 4 * QUAD * WARPS * WARP) {
        struct quad q[4];
        quads_load<4>(q, g, k, QUAD * WARPS * WARP, K, f.wide);
        for (int j = 0; j < 4 * QUAD; j++) {
            const double one = (double)__fmul_rn(q[j / QUAD].v[j % QUAD], scale);
            sum = fma(one, one, sum);
        }
    }
    sum = team_sum<WARPS>(sum, room);
    float *row = (float *)f.a.row.data + r;
    if (team_thread<WARPS>() == 0) *row += (float)(f.share * (sum / (double)K - (double)*row));
}

// Sums of 32 columns over COLUMN_ROWS rows, then over all of these in order.
__global__ void column_sums_kernel(struct factored f) {
    SHARED(double, room, COLUMN_THREADS * (int)WARP);
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int64_t K = f.a.w.cols, k = (int64_t)blockIdx.x * WARP + x;
    for (int64_t part = blockIdx.y; part < ceil_div(f.a.w.rows, COLUMN_ROWS); part += gridDim.y) {
        const int64_t end = min((part + 1) * COLUMN_ROWS, f.a.w.rows);
        double sum = 0;
        if (k < K) {
#pragma unroll 4
            for (int64_t r = part * COLUMN_ROWS + y; r < end; r += COLUMN_THREADS) {
                const double one = (double)__fmul_rn(grad_row(f, r)[k], one_if_zero(f.a.grad_scale));
                sum = fma(one, one, sum);
            }
        }
        room[y * WARP + x] = sum;
        __syncthreads();
        for (int i = 1; y == 0 && i < COLUMN_THREADS; i++) sum += room[i * WARP + x];
        if (y == 0 && k < K) f.parts[part * K + k] = sum;
        __syncthreads();
    }
}
__global__ void column_means_kernel(struct factored f) {
    const int64_t K = f.a.w.cols, k = (int64_t)blockIdx.x * THREADS + threadIdx.x, parts = ceil_div(f.a.w.rows, COLUMN_ROWS);
    if (k >= K) return;
    double sum = 0;
#pragma unroll 8
    for (int64_t p = 0; p < parts; p++) sum += f.parts[p * K + k];
    float *column = (float *)f.a.column.data + k;
    *column += (float)(f.share * (sum / (double)f.a.w.rows - (double)*column));
}
__global__ void mean_of_rows_kernel(struct factored f) {
    SHARED(double, room, WARP);
    double sum = 0;
    for (int64_t r = threadIdx.x; r < f.a.w.rows; r += THREADS) sum += (double)((const float *)f.a.row.data)[r];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) f.all[ALL_MEAN] = sum / (double)f.a.w.rows;
}

// What a row contributes to the square of each of its columns; u of one place: the gradient over the root of that square.
static __device__ __forceinline__ float row_share(const struct factored &f, int64_t r) {
    return f.a.w.rows > 1 ? (float)((double)((const float *)f.a.row.data)[r] / fmax(f.all[ALL_MEAN], (double)FLT_EPSILON)) : 1;
}
static __device__ __forceinline__ float unit_of(const struct factored &f, float grad, float column, float share) {
    const float square = fmaxf(__fmul_rn(column, share), FLT_EPSILON * FLT_EPSILON);
    return __fdiv_rn(__fmul_rn(grad, one_if_zero(f.a.grad_scale)), __fsqrt_rn(square));
}
template <int WARPS> __global__ void sizes_kernel(struct factored f) {
    SHARED(double, room, 2 * WARPS);
    const int64_t r = team_number<WARPS>(), K = f.a.w.cols;
    if (r >= f.a.w.rows) return;
    const float *g = grad_row(f, r), *w = (const float *)f.a.w.data + r * K, *column = (const float *)f.a.column.data;
    const float share = row_share(f, r);
    double units = 0, size = 0;
    for (int64_t k = QUAD * team_thread<WARPS>(); k < K; k += QUAD * WARPS * WARP) {
        const struct quad q = quad_load(g + k, K - k, f.wide), y = quad_load(w + k, K - k, f.wide);
        const struct quad c = quad_load(column + k, K - k, f.wide);
        for (int j = 0; j < QUAD; j++) {
            const double u = (double)unit_of(f, q.v[j], c.v[j], share); // 0 behind the row's end, as its gradient
            units = fma(u, u, units), size = fma((double)y.v[j], (double)y.v[j], size);
        }
    }
    units = team_sum<WARPS>(units, room);
    size = team_sum<WARPS>(size, room + WARPS);
    if (team_thread<WARPS>() == 0) f.a.scratch[r * ROW_SUMS + ROW_U] = units, f.a.scratch[r * ROW_SUMS + ROW_W] = size;
}
__global__ void rate_kernel(struct factored f) {
    SHARED(double, room, WARP);
    double units = 0, size = 0;
    for (int64_t r = threadIdx.x; r < f.a.w.rows; r += THREADS)
        units += f.a.scratch[r * ROW_SUMS + ROW_U], size += f.a.scratch[r * ROW_SUMS + ROW_W];
    units = block_sum(units, room);
    size = block_sum(size, room);
    const double count = (double)f.a.w.rows * (double)f.a.w.cols;
    const double rate = fmin((double)f.a.lr, 1 / sqrt((double)f.a.step)) * fmax(1e-3, sqrt(size / count));
    if (threadIdx.x == 0) f.all[ALL_RATE] = rate / fmax(1.0, sqrt(units / count));
}
__global__ void factored_kernel(struct factored f) {
    const int64_t K = f.a.w.cols, k = quad_column(), left = K - k;
    if (left <= 0) return;
    const struct quad column = quad_load((const float *)f.a.column.data + k, left, f.wide);
    const float rate = (float)f.all[ALL_RATE];
    for (int64_t r = quad_row(); r < f.a.w.rows; r += quad_rows()) {
        float *w = (float *)f.a.w.data + r * K + k;
        const float share = row_share(f, r);
        const struct quad g = quad_load(grad_row(f, r) + k, left, f.wide);
        struct quad to = quad_load(w, left, f.wide);
        for (int j = 0; j < QUAD; j++) {
            const float u = unit_of(f, g.v[j], column.v[j], share);
            to.v[j] = fmaf(to.v[j], f.shrink, -__fmul_rn(rate, u));
        }
        quad_store(w, to, left, f.wide);
        if (f.a.copy.data) copy_store((uint16_t *)f.a.copy.data + r * K + k, to, left, f.wide);
    }
}

static void cuda_adafactor(const struct adafactor_args *a) {
    const int64_t M = a->w.rows, K = a->w.cols, parts = ceil_div(M, COLUMN_ROWS);
    assert(is_flat(a->w) && fits(a->g, a->w) && copy_fits(a->copy, a->w) && a->step >= 1 && a->scratch);
    assert(is_flat(a->column) && a->column.rows == 1 && a->column.cols == K);
    assert(is_flat(a->row) && a->row.rows == 1 && a->row.cols == M);
    if (M * K == 0) return;
    double *all = (double *)cuda_scratch(SLOT_UPDATE, (size_t)(ALL_SUMS + parts * K) * sizeof(double));
    const bool wide = aligned(a->w, 16) && aligned(a->g, 16) && aligned(a->column, 16) && aligned(a->copy, 8) &&
                      K % QUAD == 0;
    const struct factored f = {*a, pow((double)a->step, -0.8), all, all + ALL_SUMS, 1 - a->lr * a->weight_decay, wide};
    const dim3 sums = dim3((unsigned)ceil_div(K, WARP), (unsigned)(parts < 65535 ? parts : 65535));
    if (M > 1) LAUNCH_TEAMS(row_means_kernel, K, M, 0, f);
    LAUNCH((column_sums_kernel), sums, dim3(WARP, COLUMN_THREADS), 0, f);
    LAUNCH((column_means_kernel), dim3((unsigned)ceil_div(K, THREADS)), THREADS, 0, f);
    if (M > 1) LAUNCH((mean_of_rows_kernel), 1, THREADS, 0, f);
    LAUNCH_TEAMS(sizes_kernel, K, M, 0, f);
    LAUNCH((rate_kernel), 1, THREADS, 0, f);
    LAUNCH_QUADS((factored_kernel), a->w, f);
}

void cuda_fill_updates(struct backend *b) {
    b->sum_squares = cuda_sum_squares;
    b->update = cuda_update;
    b->adafactor = cuda_adafactor;
}
