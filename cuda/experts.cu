// experts.cu: a mixture of experts but for its products: who goes where, and what comes of it (cpu/experts.c).
//
// Sorting on the device, the same every time: pairs are cut into chunks that lie inside a segment; a block counts its chunk's pairs
// of each expert, one block turns the counts, in order of expert, segment and chunk, into places where these begin, and a block
// gives its chunk's pairs their places. A thread has an expert and goes over the chunk in order, so no two threads ever count
// together. A text of few rows is one chunk, which one block sorts at once.
#include "cuda/exp.cuh"
#include "cuda/rows.cuh"

enum { EXPERTS_MOST = 1024 };

// ---------------------------------------------------------------------------------------------------------------
// Routing: a warp has a row, a lane every 32nd expert.

// The larger logit, the lower number among equals. A NaN counts as the least; the weights carry it on.
struct candidate { float z; int e; };
static __device__ __forceinline__ struct candidate better(struct candidate a, struct candidate b) {
    return b.z > a.z || (b.z == a.z && b.e < a.e) ? b : a;
}
static __device__ __forceinline__ struct candidate warp_best(struct candidate c) {
    for (int far = WARP / 2; far > 0; far /= 2) {
        const struct candidate other = {__shfl_xor_sync(0xffffffffu, c.z, far), __shfl_xor_sync(0xffffffffu, c.e, far)};
        c = better(c, other);
    }
    return c;
}
static __device__ __forceinline__ float least_if_nan(float z) { return z == z ? z : -INFINITY; }

__global__ void route_kernel(struct route_args a) {
    const int E = (int)a.logits.cols, used = (int)a.used, lane = (int)threadIdx.x % WARP;
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    if (i >= a.logits.rows) return; // a whole warp
    const float *logits = row_f32(a.logits, i);
    int32_t *chosen = a.chosen + i * used;
    float *weight = a.weight + i * used, most = -INFINITY;
    for (int e = lane; e < E; e += WARP) most = fmaxf(most, logits[e]);
    most = warp_max(most);
    double sum = 0, kept = 0; // of all, which is NaN where a logit is; of the chosen
    for (int e = lane; e < E; e += WARP) sum += (double)exp_f32(logits[e] - most);
    sum = warp_sum(sum);
    uint32_t taken = 0; // bit k: expert lane + 32 k
    for (int k = 0; k < used; k++) {
        struct candidate best = {-INFINITY, EXPERTS_MOST};
        for (int e = lane; e < E; e += WARP)
            if (!(taken >> e / WARP & 1)) best = better(best, (struct candidate){least_if_nan(logits[e]), e});
        best = warp_best(best);
        if (best.e % WARP == lane) taken |= 1u << best.e / WARP;
        const float e = exp_f32(best.z - most);
        kept += (double)e;
        if (lane == 0) chosen[k] = best.e, weight[k] = e;
    }
    __syncwarp();
    const double by = a.renormalize ? kept + (sum - sum) : sum; // NaN if sum is
    for (int k = lane; k < used; k += WARP) weight[k] = (float)((double)weight[k] / by);
}
static void cuda_route(const struct route_args *a) {
    assert(is_f32(a->logits) && a->used >= 1 && a->used <= a->logits.cols && a->logits.cols <= EXPERTS_MOST);
    if (a->logits.rows > 0) LAUNCH((route_kernel), dim3((unsigned)ceil_div(a->logits.rows * WARP, THREADS)), THREADS, 0, *a);
}

// Its gradient: a block has a row. The dots of the experts used are read from memory once, a warp each; the rest is small.
__global__ void route_back_kernel(struct route_back_args a, bool wide) {
    SHARED(double, own, EXPERTS_MOST); // s[k] at the k-th chosen expert, less the weights' share of their sum
    SHARED(double, room, WARP);
    SHARED(float, float_room, WARP);
    const int E = (int)a.logits.cols, used = (int)a.used, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    const int64_t i = blockIdx.x, C = a.x.cols;
    const float *logits = row_f32(a.logits, i);
    const float *b = a.balance.data ? row_f32(a.balance, i / (a.logits.rows / a.balance.rows)) : NULL;
    const int32_t *chosen = a.chosen + i * used;
    for (int e = (int)threadIdx.x; e < E; e += THREADS) own[e] = 0;
    __syncthreads();
    for (int k = warp; k < used; k += (int)THREADS / WARP) {
        const int64_t q = a.place[i * used + k];
        const float *x = row_f32(a.x, q), *dx = row_f32(a.dx, q);
        double dot = 0;
        for (int64_t c = QUAD * lane; c < C; c += 4 * QUAD * (int)WARP) {
            struct quad u[4], v[4];
            quads_load<4>(u, x, c, QUAD * (int)WARP, C, wide), quads_load<4>(v, dx, c, QUAD * (int)WARP, C, wide);
            for (int j = 0; j < 4 * QUAD; j++) dot = fma((double)u[j / QUAD].v[j % QUAD], (double)v[j / QUAD].v[j % QUAD], dot);
        }
        dot = warp_sum(dot);
        if (lane == 0) own[chosen[k]] = dot;
    }
    float most = -INFINITY;
    for (int e = (int)threadIdx.x; e < E; e += THREADS) most = fmaxf(most, logits[e]);
    most = block_max(most, float_room);
    double all = 0, mean = 0, sum = 0;
    for (int e = (int)threadIdx.x; e < E; e += THREADS) {
        const double p = exp((double)logits[e] - (double)most);
        all += p;
        if (b) mean += (double)b[e] * p;
    }
    all = block_sum(all, room);
    mean = block_sum(mean, room) / all;
    for (int k = 0; k < used; k++) sum += own[chosen[k]];
    __syncthreads();
    for (int k = (int)threadIdx.x; k < used && a.renormalize; k += THREADS) own[chosen[k]] -= (double)a.weight[i * used + k] * sum;
    __syncthreads();
    const double size = (double)most + log(all), z = 2 * (double)a.z_loss * size;
    for (int e = (int)threadIdx.x; e < E; e += THREADS) {
        const double p = exp((double)logits[e] - (double)most) / all;
        row_f32(a.dlogits, i)[e] = (float)(own[e] + p * ((b ? (double)b[e] : 0) - mean + z - (a.renormalize ? 0 : sum)));
    }
    if (threadIdx.x == 0) a.other[i] = (float)(mean + (double)a.z_loss * size * size);
}
static void cuda_route_back(const struct route_back_args *a) {
    assert(is_f32(a->dlogits) && is_f32(a->logits) && same_shape(a->dlogits, a->logits) && a->logits.cols <= EXPERTS_MOST);
    assert(is_f32(a->x) && is_f32(a->dx) && same_shape(a->x, a->dx) && a->x.rows == a->logits.rows * a->used);
    assert(!tensor_present(&a->balance) || (is_f32(a->balance) && a->balance.cols == a->logits.cols));
    assert(!tensor_present(&a->balance) || a->logits.rows % a->balance.rows == 0);
    const bool wide = by_sixteen(a->x) && by_sixteen(a->dx) && a->x.cols % QUAD == 0;
    if (a->logits.rows > 0) LAUNCH((route_back_kernel), dim3((unsigned)a->logits.rows), THREADS, 0, *a, wide);
}

// ---------------------------------------------------------------------------------------------------------------
// Sorting.

enum { CHUNK = 512, SCAN_THREADS = 1024 };
struct sorting {
    struct group_args a;
    int64_t segments, each; // chunks of a segment
    int32_t *begin;         // [experts][segments][each]: counts, then places
};

// Which pairs a block has: those of chunk c of segment s.
struct chunk { int64_t first; int count; };
static __device__ __forceinline__ struct chunk chunk_of(const struct sorting &g, int64_t block) {
    const int64_t pairs = g.a.segment * g.a.used, s = block / g.each, from = block % g.each * CHUNK;
    return (struct chunk){s * pairs + from, (int)min((int64_t)CHUNK, pairs - from)};
}
static __device__ __forceinline__ void chunk_load(const struct sorting &g, struct chunk c, int32_t *chosen) {
    for (int j = (int)threadIdx.x; j < c.count; j += (int)blockDim.x) chosen[j] = g.a.chosen[c.first + j];
    __syncthreads();
}
static __device__ __forceinline__ int count_of(const int32_t *chosen, int count, int e) {
    int sum = 0;
    for (int j = 0; j < count; j++) sum += chosen[j] == e;
    return sum;
}
// Pairs of expert e, in order, from place q on.
static __device__ __forceinline__ void place_all(const struct sorting &g, struct chunk c, const int32_t *chosen, int e, int q) {
    for (int j = 0; j < c.count; j++)
        if (chosen[j] == e) {
            const int64_t p = c.first + j;
            g.a.place[p] = q, g.a.row[q] = (int32_t)(p / g.a.used), g.a.expert[q] = e;
            q++;
        }
}
// What the threads before this one have in all.
static __device__ __forceinline__ int before_me(int x, int *room) {
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int sum = x;
    for (int far = 1; far < WARP; far *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, far);
        if (lane >= far) sum += other;
    }
    __syncthreads();
    if (lane == WARP - 1) room[warp] = sum;
    __syncthreads();
    int before = sum - x;
    for (int w = 0; w < warp; w++) before += room[w];
    return before;
}

__global__ void count_kernel(struct sorting g) {
    SHARED(int32_t, chosen, CHUNK);
    const struct chunk c = chunk_of(g, blockIdx.x);
    const int e = (int)threadIdx.x;
    chunk_load(g, c, chosen);
    if (e < g.a.experts) g.begin[e * g.segments * g.each + blockIdx.x] = count_of(chosen, c.count, e);
}
__global__ void begin_kernel(struct sorting g) {
    SHARED(int, room, WARP);
    const int64_t all = g.a.experts * g.segments * g.each, run = ceil_div(all, SCAN_THREADS);
    const int64_t first = min(all, threadIdx.x * run), end = min(all, first + run);
    int sum = 0;
#pragma unroll 8
    for (int64_t i = first; i < end; i++) sum += g.begin[i];
    int at = before_me(sum, room);
    for (int64_t i = first; i < end; i++) {
        const int count = g.begin[i];
        g.begin[i] = at;
        if (i % g.each == 0) g.a.start[i / g.each] = at;
        at += count;
    }
    if (threadIdx.x == 0) g.a.start[g.a.experts * g.segments] = (int32_t)(g.a.rows * g.a.used);
}
__global__ void place_kernel(struct sorting g) {
    SHARED(int32_t, chosen, CHUNK);
    const struct chunk c = chunk_of(g, blockIdx.x);
    const int e = (int)threadIdx.x;
    chunk_load(g, c, chosen);
    if (e < g.a.experts) place_all(g, c, chosen, e, g.begin[e * g.segments * g.each + blockIdx.x]);
}
__global__ void sort_one_chunk_kernel(struct sorting g) {
    SHARED(int32_t, chosen, CHUNK);
    SHARED(int, room, WARP);
    const struct chunk c = chunk_of(g, 0);
    const int e = (int)threadIdx.x;
    chunk_load(g, c, chosen);
    const int q = before_me(count_of(chosen, c.count, e), room);
    if (e <= g.a.experts) g.a.start[e] = q; // behind the last: all
    if (e < g.a.experts) place_all(g, c, chosen, e, q);
}
static void cuda_group(const struct group_args *a) {
    assert(a->segment > 0 && a->rows % a->segment == 0 && a->experts >= 1 && a->experts <= EXPERTS_MOST && a->used >= 1);
    assert(a->rows * a->used <= INT32_MAX);
    if (a->rows == 0) return;
    struct sorting g = {*a, a->rows / a->segment, ceil_div(a->segment * a->used, CHUNK), NULL};
    const int64_t chunks = g.segments * g.each, threads = ceil_div(a->experts, WARP) * WARP;
    if (chunks == 1 && a->experts < EXPERTS_MOST) {
        LAUNCH((sort_one_chunk_kernel), 1, dim3((unsigned)(ceil_div(a->experts + 1, WARP) * WARP)), 0, g);
        return;
    }
    g.begin = (int32_t *)cuda_scratch(SLOT_EXPERTS, (size_t)(a->experts * chunks) * sizeof(int32_t));
    LAUNCH((count_kernel), dim3((unsigned)chunks), dim3((unsigned)threads), 0, g);
    LAUNCH((begin_kernel), 1, SCAN_THREADS, 0, g);
    LAUNCH((place_kernel), dim3((unsigned)chunks), dim3((unsigned)threads), 0, g);
}

// ---------------------------------------------------------------------------------------------------------------
// Adding up the parts of a row, and its twin.

enum { MIXED_AT_ONCE = 4 }; // loads under way
__global__ void mix_kernel(struct mix_args a, bool wide) {
    const int64_t c = quad_column(), left = a.out.cols - c;
    for (int64_t i = quad_row(); i < a.out.rows && left > 0; i += quad_rows()) {
        struct quad sum = quad_of(0), x[MIXED_AT_ONCE];
        for (int64_t first = 0; first < a.used; first += MIXED_AT_ONCE) {
#pragma unroll
            for (int k = 0; k < MIXED_AT_ONCE; k++) {
                const int64_t p = i * a.used + first + k;
                if (first + k < a.used) x[k] = quad_load(row_f32(a.x, a.place ? a.place[p] : p) + c, left, wide);
            }
#pragma unroll
            for (int k = 0; k < MIXED_AT_ONCE; k++) {
                if (first + k >= a.used) break;
                const float w = a.weight ? a.weight[i * a.used + first + k] : 1;
                for (int j = 0; j < QUAD; j++) sum.v[j] = first + k ? fmaf(w, x[k].v[j], sum.v[j]) : __fmul_rn(w, x[k].v[j]);
            }
        }
        quad_store(row_f32(a.out, i) + c, sum, left, wide);
    }
}
static void cuda_mix(const struct mix_args *a) {
    assert(is_f32(a->out) && is_f32(a->x) && a->out.cols == a->x.cols && a->used >= 1 && a->x.rows == a->out.rows * a->used);
    if (a->out.rows * a->out.cols > 0) LAUNCH_QUADS((mix_kernel), a->out, *a, by_sixteen(a->out) && by_sixteen(a->x));
}

__global__ void mix_back_kernel(struct mix_back_args a, bool wide) {
    const int64_t c = quad_column(), left = a.dout.cols - c;
    const float scale = one_if_zero(a.scale);
    for (int64_t i = quad_row(); i < a.dout.rows && left > 0; i += quad_rows()) {
        const struct quad dout = quad_load(row_f32(a.dout, i) + c, left, wide);
        for (int64_t k = 0; k < a.used; k++) {
            const int64_t p = i * a.used + k;
            const float w = scale * a.weight[p];
            struct quad dx;
            for (int j = 0; j < QUAD; j++) dx.v[j] = w * dout.v[j];
            quad_store(row_f32(a.dx, a.place[p]) + c, dx, left, wide);
        }
    }
}
static void cuda_mix_back(const struct mix_back_args *a) {
    assert(is_f32(a->dx) && is_f32(a->dout) && a->dx.cols == a->dout.cols && a->dx.rows == a->dout.rows * a->used);
    if (a->dout.rows * a->dout.cols > 0) LAUNCH_QUADS((mix_back_kernel), a->dout, *a, by_sixteen(a->dx) && by_sixteen(a->dout));
}

void cuda_fill_experts(struct backend *b) {
    b->route = cuda_route;
    b->route_back = cuda_route_back;
    b->group = cuda_group;
    b->mix = cuda_mix;
    b->mix_back = cuda_mix_back;
}
