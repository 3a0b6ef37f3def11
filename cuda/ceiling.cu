// ceiling.cu: how fast this GPU is at most, measured: memory read, memory copied, and every unit that the kernels multiply with.
//
// Each row is a kernel that does one thing and nothing else, long enough that its launch does not count, in rounds until the time
// is over; the best counts. The clock is the host's around a launch that is waited for.
#include "cuda/cuda.cuh"

enum { THREADS = 256, CHAINS = 8 };

// Reads all of `from`, 16 bytes a thread and step, four steps in flight.
__global__ void read_kernel(const uint4 *from, int64_t count, uint32_t *never) {
    const int64_t step = (int64_t)gridDim.x * THREADS;
    uint32_t sum = 0;
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i + 3 * step < count; i += 4 * step) {
        const uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
        sum += (a.x ^ b.y) + (c.z ^ d.w);
    }
    for (; i < count; i += step) sum += from[i].x;
    if (sum == 0x9e3779b9u) *never = sum; // so that the reads are not left out
}
__global__ void copy_kernel(uint4 *to, const uint4 *from, int64_t count) {
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step) to[i] = from[i];
}
__global__ void f32_kernel(float *never, int rounds) {
    float chain[CHAINS];
    for (int k = 0; k < CHAINS; k++) chain[k] = (float)(threadIdx.x + k);
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++) chain[k] = __fmaf_rn(chain[k], .5f, 1.f);
    float sum = 0;
    for (int k = 0; k < CHAINS; k++) sum += chain[k];
    if (sum == -1) *never = sum;
}
__global__ void bytes_kernel(int *never, int rounds) {
    int chain[CHAINS];
    for (int k = 0; k < CHAINS; k++) chain[k] = (int)threadIdx.x + k;
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++) chain[k] = __dp4a(chain[k], 0x01020304, k);
    int sum = 0;
    for (int k = 0; k < CHAINS; k++) sum += chain[k];
    if (sum == 0x12345) *never = sum;
}
__global__ void bf16_kernel(float *never, int rounds) {
    const uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, 2, 3}, b[2] = {threadIdx.x, 5};
    float d[4][4];
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 4; j++) d[k][j] = 0;
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) mma_bf16(d[k], a, b);
    float sum = 0;
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 4; j++) sum += d[k][j];
    if (sum == -1) *never = sum;
}

// The same by warpgroups, where products are made of it: 64 x 256 outputs to each, out of one tile of each factor. What the tiles hold
// are small numbers that differ, as power has a say in how fast tensor cores are.
enum { WGMMA_COLS = 256, WGMMA_STEPS = 4, WGMMA_BYTES = (64 + WGMMA_COLS) * 128 + 1024 };
__global__ void __launch_bounds__(WARPGROUP) wgmma_burn_kernel(float *never, int rounds) {
#if CUDA_WGMMA
    SHARED_REST(uint16_t, given);
    uint16_t *a = given + (-shared_address(given) & 1023) / 2, *b = a + 64 * 64;
    for (int i = (int)threadIdx.x; i < (64 + WGMMA_COLS) * 64; i += WARPGROUP) a[i] = (uint16_t)(0x3c00 + i * 37 % 512);
    fence_proxy_async();
    __syncthreads();
    float d[WGMMA_COLS / 2];
#pragma unroll
    for (int j = 0; j < WGMMA_COLS / 2; j++) d[j] = 0;
#pragma unroll
    for (int j = 0; j < WGMMA_COLS / 2; j++) keep_here(d[j]);
#pragma unroll 1
    for (int i = 0; i < rounds; i++) {
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < WGMMA_STEPS; s++) wgmma_bf16<WGMMA_COLS, false, false>(d, wgmma_matrix(a + 16 * s, 0, 1024), wgmma_matrix(b + 16 * s, 0, 1024));
        wgmma_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    float sum = 0;
#pragma unroll
    for (int j = 0; j < WGMMA_COLS / 2; j++) {
        keep_here(d[j]);
        sum += d[j];
    }
    if (sum == -1) *never = sum;
#else
    (void)never, (void)rounds;
#endif
}

// One round of each: what it starts, and how many bytes or operations that is.
struct burn_room {
    void *a, *b;
    size_t bytes;
    int blocks, rounds;
};
static double burn_read(const struct burn_room *r) {
    LAUNCH((read_kernel), r->blocks, THREADS, 0, (const uint4 *)r->a, (int64_t)(r->bytes / 16), (uint32_t *)r->b);
    return (double)r->bytes;
}
static double burn_copy(const struct burn_room *r) {
    LAUNCH((copy_kernel), r->blocks, THREADS, 0, (uint4 *)r->b, (const uint4 *)r->a, (int64_t)(r->bytes / 16));
    return 2 * (double)r->bytes;
}
static double burn_f32(const struct burn_room *r) {
    LAUNCH((f32_kernel), r->blocks, THREADS, 0, (float *)r->b, r->rounds);
    return 2.0 * CHAINS * THREADS * r->blocks * r->rounds;
}
static double burn_bytes(const struct burn_room *r) {
    LAUNCH((bytes_kernel), r->blocks, THREADS, 0, (int *)r->b, r->rounds);
    return 8.0 * CHAINS * THREADS * r->blocks * r->rounds;
}
static double burn_bf16(const struct burn_room *r) {
    if (cuda_has_wgmma()) {
        LAUNCH((wgmma_burn_kernel), r->blocks, WARPGROUP, WGMMA_BYTES, (float *)r->b, r->rounds);
        return 2.0 * 64 * WGMMA_COLS * 16 * WGMMA_STEPS * r->blocks * r->rounds;
    }
    LAUNCH((bf16_kernel), r->blocks, THREADS, 0, (float *)r->b, r->rounds);
    return 2.0 * 16 * 8 * 16 * 4 * (THREADS / WARP) * r->blocks * r->rounds;
}

static const struct burn {
    const char *name, *measure;
    double (*round)(const struct burn_room *r);
    bool tensor;
} burns[] = {
    {"memory read", "GB/s", burn_read, false},
    {"memory copy", "GB/s", burn_copy, false},
    {"f32", "GFLOP/s", burn_f32, false},
    {"int8 dots", "GOP/s", burn_bytes, false},
    {"bf16 tensor cores", "GFLOP/s", burn_bf16, true},
};

int cuda_ceilings(const struct backend *b, struct ceiling to[CEILINGS_MOST], double seconds, size_t bytes, struct err *err) {
    struct burn_room room = {NULL, NULL, bytes / 16 * 16, 8 * cuda_processors(), (int)(bytes >> 16) + 1};
    room.a = b->alloc(room.bytes, "measuring", err);
    room.b = room.a ? b->alloc(room.bytes, "measuring", err) : NULL;
    int rows = 0;
    for (size_t i = 0; room.b && i < COUNT_OF(burns); i++) {
        if (burns[i].tensor && !cuda_has_bf16()) continue;
        double best = 0;
        for (double end = time_now() + seconds / COUNT_OF(burns), from = time_now(); from < end;) {
            const double work = burns[i].round(&room);
            b->sync();
            const double now = time_now();
            if (work / (now - from) > best) best = work / (now - from);
            from = now;
        }
        to[rows++] = (struct ceiling){burns[i].name, burns[i].measure, best};
    }
    b->free(room.a), b->free(room.b);
    return rows;
}

const char *cuda_unit(enum dtype weight, enum precision precision) {
    if (precision == PRECISION_BF16 && cuda_has_bf16()) return "bf16 tensor cores";
    return dtype_row(weight)->block_weights > 1 && precision == PRECISION_F32 ? "int8 dots" : "f32";
}
