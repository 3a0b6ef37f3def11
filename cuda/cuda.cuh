// cuda.cuh: the words that all kernels are written in. The .cu files are C with templates for dtype and size.
//
// The same files are compiled three ways: by nvcc for GPUs; as C++ for the CPU, where tests/cuda_on_cpu.h gives every word here
// a meaning (one fiber for each thread of a block); and not at all where there is no nvcc. So that this works:
//   - kernels are started by LAUNCH only, which also names them to profilers
//   - shared memory is taken by SHARED (static) and SHARED_REST (the bytes given to LAUNCH) only
//   - PTX stands in this file only, behind functions
// An argument struct of backend.h goes to its kernel by value: a kernel reads like the formula there.
//
// Numbers are rounded where the source says so: nvcc is told -fmad=false, and what is to be one rounding is written __fmaf_rn. So
// the bits on a GPU are those that the tests see on the processor, but for the sums inside a tensor core.
//
// Orders of sums, which rule 2 of backend.h is about: within a warp butterflies (warp_sum), within a block warps in order
// (block_sum). Neither depends on anything but the number of threads, which is fixed for each kernel.
#ifndef LEHR_CUDA_CUH
#define LEHR_CUDA_CUH

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef CUDA_ON_CPU
#include "tests/cuda_on_cpu.h"
#else
#include <cuda_runtime.h>
#endif

extern "C" {
#include "backend.h"
#include "core/blocks.h"
}

enum { WARP = 32 };

// ---------------------------------------------------------------------------------------------------------------
// Launches. The stream is the backend's one stream; a failed launch ends the program with the kernel's name.

#ifndef CUDA_ON_CPU
cudaStream_t cuda_stream(void);
void cuda_launching(const char *kernel);                           // opens a range for profilers
void cuda_launched(const char *kernel, const char *file, int line); // closes it and looks for an error
// Asks for more shared memory than the 48 KiB that everybody may have; *allowed is what this kernel got before.
void cuda_want_shared(const void *kernel, size_t bytes, size_t *allowed, const char *name);
#define CUDA_NAME_(...) __VA_ARGS__
#define CUDA_NAME(kernel) CUDA_NAME_ kernel
// LAUNCH((name<1, 2>), grid, block, bytes, arguments...): the name stands in parentheses; bytes of SHARED_REST
#define LAUNCH(kernel, grid, block, bytes, ...)                                                  \
    do {                                                                                         \
        static size_t allowed_;                                                                  \
        cuda_want_shared((const void *)(CUDA_NAME(kernel)), (size_t)(bytes), &allowed_, #kernel); \
        cuda_launching(#kernel);                                                                 \
        CUDA_NAME(kernel)<<<(grid), (block), (size_t)(bytes), cuda_stream()>>>(__VA_ARGS__);     \
        cuda_launched(#kernel, __FILE__, __LINE__);                                              \
    } while (0)
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SHARED_REST(type, name)                        \
    extern __shared__ __align__(128) unsigned char shared_rest_[]; \
    type *name = (type *)(void *)shared_rest_
#endif

// ---------------------------------------------------------------------------------------------------------------
// Numbers.

static __device__ __forceinline__ float from_bf16(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
// Nearest, ties to even; NaN stays NaN: the bits of bf16_from_f32.
static __device__ __forceinline__ uint16_t to_bf16(float x) {
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
#ifndef CUDA_ON_CPU
static __device__ __forceinline__ float from_f16(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
static __device__ __forceinline__ uint16_t to_f16(float x) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
// Two numbers as bf16, the first in the lower half.
static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
#if __CUDA_ARCH__ >= 800
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
#else
    return (uint32_t)to_bf16(lo) | (uint32_t)to_bf16(hi) << 16;
#endif
}
// 2^x, off by some 2^-22 of itself at most; what would be denormal is 0.
static __device__ __forceinline__ float exp2_fast(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
#else
static inline float exp2_fast(float x) { return exp2f(x); }
static inline float from_f16(uint16_t h) { return f16_to_f32(h); }
static inline uint16_t to_f16(float x) { return f16_from_f32(x); }
static inline uint32_t pack_bf16(float lo, float hi) { return (uint32_t)to_bf16(lo) | (uint32_t)to_bf16(hi) << 16; }
#endif

// Nothing, but what the compiler makes of x it makes here, and not once for a whole loop.
#ifndef CUDA_ON_CPU
static __device__ __forceinline__ void keep_here(int &x) { asm volatile("" : "+r"(x)); }
static __device__ __forceinline__ void keep_here(size_t &x) { asm volatile("" : "+l"(x)); }
static __device__ __forceinline__ void keep_here(float &x) { asm volatile("" : "+f"(x) : : "memory"); }
#else
static inline void keep_here(float &) {}
static inline void keep_here(int &) {}
static inline void keep_here(size_t &) {}
#endif

static __host__ __device__ __forceinline__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static __host__ __device__ __forceinline__ float one_if_zero(float scale) { return scale == 0 ? 1 : scale; }

// ---------------------------------------------------------------------------------------------------------------
// Rows.

static __host__ __device__ __forceinline__ void *row_at(const struct tensor &t, int64_t i) { return (char *)t.data + (size_t)i * t.row_bytes; }
static __host__ __device__ __forceinline__ float *row_f32(const struct tensor &t, int64_t i) { return (float *)row_at(t, i); }
// May every row be read 16 bytes at a time from its start?
static inline bool by_sixteen(const struct tensor &t) { return ((uintptr_t)t.data | t.row_bytes) % 16 == 0; }
// Number c of a row of numbers (no block format).
static __device__ __forceinline__ float number_at(const void *row, int64_t c, enum dtype d) {
    if (d == DTYPE_F32) return ((const float *)row)[c];
    const uint16_t h = ((const uint16_t *)row)[c];
    return d == DTYPE_BF16 ? from_bf16(h) : from_f16(h);
}

// What ops assert of their arguments.
static inline bool is_rows(const struct tensor &t) {
    size_t need;
    if (!t.data && t.rows > 0) return false;
    if (t.layout != LAYOUT_ROWS || t.mats != 1 || t.rows < 0 || t.cols < 0) return false;
    return dtype_row_bytes(t.dtype, t.cols, &need) && (t.row_bytes >= need || t.rows <= 1);
}
static inline bool is_f32(const struct tensor &t) { return is_rows(t) && t.dtype == DTYPE_F32; }
static inline bool same_shape(const struct tensor &a, const struct tensor &b) { return a.rows == b.rows && a.cols == b.cols; }

// ---------------------------------------------------------------------------------------------------------------
// Sums and maxima of a warp, which every lane receives, and of a block, which every thread receives. `room` holds WARP values
// in shared memory; block_sum begins and ends with a barrier, so that a room may be used again.

template <class T> static __device__ __forceinline__ T warp_sum(T x) {
    for (int far = WARP / 2; far > 0; far /= 2) x += __shfl_xor_sync(0xffffffffu, x, far);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
    for (int far = WARP / 2; far > 0; far /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, far));
    return x;
}
template <class T> static __device__ __forceinline__ T block_sum(T x, T *room) {
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = ((int)blockDim.x + WARP - 1) / WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    T sum = room[0];
    for (int w = 1; w < warps; w++) sum += room[w];
    __syncthreads();
    return sum;
}
static __device__ __forceinline__ float block_max(float x, float *room) {
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = ((int)blockDim.x + WARP - 1) / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    float most = room[0];
    for (int w = 1; w < warps; w++) most = fmaxf(most, room[w]);
    __syncthreads();
    return most;
}

// ---------------------------------------------------------------------------------------------------------------
// Tensor cores and copies into shared memory (PTX ISA, "Warp-level matrix instructions" and "Asynchronous copy").

#ifndef CUDA_ON_CPU
static __device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

// d[16,8] += a[16,16] b[16,8], factors bf16. With g = lane / 4 and t = lane % 4:
//   a[0] (g, 2t..2t+1)  a[1] (g + 8, 2t..)  a[2] (g, 2t + 8..)  a[3] (g + 8, 2t + 8..)
//   b[0] (2t..2t+1, g)  b[1] (2t + 8.., g)      d[0..1] (g, 2t..2t+1)  d[2..3] (g + 8, 2t..)
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap(); // nobody asks for it there: cuda_has_bf16()
#endif
}
// d[16,8] += a[16,32] b[32,8], factors signed bytes, four to a register: as above with 4t..4t+3 for 2t..2t+1, 16 for 8. Turing has
// the quarter of it.
static __device__ __forceinline__ void mma_s8_quarter(int32_t d[2], uint32_t a, uint32_t b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};" : "+r"(d[0]), "+r"(d[1]) : "r"(a), "r"(b));
}
static __device__ __forceinline__ void mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    mma_s8_quarter(d, a[0], b[0]), mma_s8_quarter(d, a[2], b[1]);
    mma_s8_quarter(d + 2, a[1], b[0]), mma_s8_quarter(d + 2, a[3], b[1]);
#endif
}
// d[16,8] += a[16,16] b[16,8]: the half of it, a[0] and a[1] by b[0].
static __device__ __forceinline__ void mma_s8_16(int32_t d[4], uint32_t a0, uint32_t a1, uint32_t b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a0), "r"(a1), "r"(b));
#else
    mma_s8_quarter(d, a0, b), mma_s8_quarter(d + 2, a1, b);
#endif
}
// Four matrices of 8 x 8 numbers of 16 bits out of shared memory: lane l gives the address of row l % 8 of matrix l / 8, 16
// bytes, aligned; r[m] receives (lane / 4, 2 (lane % 4)..) of matrix m; trans: (2 (lane % 4).., lane / 4).
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// 16 bytes, aligned on both sides, from global to shared memory; zeros where not present. What was begun and committed is
// there for the thread that began it after cp_async_wait<N>, when at most the N youngest commits are still under way; for the
// others after a barrier behind that.
static __device__ __forceinline__ void cp_async16(void *shared, const void *global, bool present) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(shared_address(shared)), "l"(global), "r"(present ? 16 : 0) : "memory");
#else
    *(uint4 *)shared = present ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
#endif
}
static __device__ __forceinline__ void cp_async_commit(void) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}
template <int N> static __device__ __forceinline__ void cp_async_wait(void) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
#endif
}
#endif

// ---------------------------------------------------------------------------------------------------------------
// Tensor cores of Hopper: a warpgroup, 4 warps from a multiple of 4 on, multiplies tiles that lie in shared memory, while its threads
// go on (PTX ISA, "Asynchronous warpgroup level matrix instructions"). Only code for sm_90a has it; elsewhere it does nothing,
// which the first product shows (wgmma.cu). What is to be done around it:
//   - who has written into shared memory by stores or cp_async16 calls fence_proxy_async before the barrier behind which it is read
//   - all threads of the group call wgmma_fence before the first product, wgmma_commit behind the last, and wgmma_wait<N> until at
//     most the N youngest commits are under way: the sums are there, and the tiles may be written again. Until then nobody touches either
#if defined(CUDA_ON_CPU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CUDA_WGMMA 1
#else
#define CUDA_WGMMA 0
#endif
enum { WARPGROUP = 128 };

// A matrix in shared memory, rows of 128 bytes swizzled: their chunks of 16 bytes xor-ed by bits 7..9 of the address, so that what 8
// rows begin at is a multiple of 1024. Along: rows are outputs, `stride` bytes from 8 of them to the next 8; `lead` means nothing.
// Across: rows are terms, of 64 outputs each; stride bytes from 8 terms to the next 8, lead bytes from 64 outputs to the next 64.
static __device__ __forceinline__ uint64_t wgmma_matrix(const void *at, int lead, int stride) {
    return (uint64_t)(shared_address(at) >> 4 & 0x3fff) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
#ifndef CUDA_ON_CPU
static __device__ __forceinline__ void fence_proxy_async(void) {
#if CUDA_WGMMA
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}
static __device__ __forceinline__ void wgmma_fence(void) {
#if CUDA_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#endif
}
static __device__ __forceinline__ void wgmma_commit(void) {
#if CUDA_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
#endif
}
template <int N> static __device__ __forceinline__ void wgmma_wait(void) {
#if CUDA_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(N) : "memory");
#endif
}
#define WGMMA_SUMS_8(d) "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]), "+f"((d)[4]), "+f"((d)[5]), "+f"((d)[6]), "+f"((d)[7])
#define WGMMA_SUMS_16(d) WGMMA_SUMS_8(d), WGMMA_SUMS_8((d) + 8)
#define WGMMA_SUMS_32(d) WGMMA_SUMS_16(d), WGMMA_SUMS_16((d) + 16)
#define WGMMA_SUMS_64(d) WGMMA_SUMS_32(d), WGMMA_SUMS_32((d) + 32)
#define WGMMA_SUMS_128(d) WGMMA_SUMS_64(d), WGMMA_SUMS_64((d) + 64)
#define WGMMA_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_NAMES_32 WGMMA_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_NAMES_64 WGMMA_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53" \
    ",%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_NAMES_128 WGMMA_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85" \
    ",%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107" \
    ",%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// count: registers of a thread, named in `names`; a and b are the next two operands, behind them how they lie.
#define WGMMA_BF16(columns, count, names, rest)                                                                                    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" names "}, " rest ";" \
                 : WGMMA_SUMS_##count(d) : "l"(a), "l"(b), "n"(ACROSS_A ? 1 : 0), "n"(ACROSS_B ? 1 : 0) : "memory")
// d[64,N] += a[64,16] b[16,N]. Warp w of the group has rows 16 w ..; with g = lane / 4 and t = lane % 4 of these
//   d[4j..4j+1] (g, 8j + 2t..)  d[4j+2..4j+3] (g + 8, 8j + 2t..)
template <int N, bool ACROSS_A, bool ACROSS_B> static __device__ __forceinline__ void wgmma_bf16(float d[N / 2], uint64_t a, uint64_t b) {
    static_assert(N == 32 || N == 64 || N == 128 || N == 256);
#if CUDA_WGMMA
    if constexpr (N == 32) WGMMA_BF16(32, 16, WGMMA_NAMES_16, "%16, %17, 1, 1, 1, %18, %19");
    if constexpr (N == 64) WGMMA_BF16(64, 32, WGMMA_NAMES_32, "%32, %33, 1, 1, 1, %34, %35");
    if constexpr (N == 128) WGMMA_BF16(128, 64, WGMMA_NAMES_64, "%64, %65, 1, 1, 1, %66, %67");
    if constexpr (N == 256) WGMMA_BF16(256, 128, WGMMA_NAMES_128, "%128, %129, 1, 1, 1, %130, %131");
#else
    (void)d, (void)a, (void)b;
#endif
}
#endif

// ---------------------------------------------------------------------------------------------------------------
// What the files of cuda/ share on the host.

bool cuda_has_bf16(void);            // mma_bf16 exists on this GPU (Ampere and later); else products are in f32
bool cuda_has_wgmma(void);           // products in bf16 are all made by wgmma_bf16; else by mma_bf16
extern "C" bool cuda_wgmma_agrees(const struct backend *b); // also for the tests, which are C: wgmma gives what mma gives, and the same bits with every tile: measured (wgmma.cu)
int cuda_processors(void);           // multiprocessors
size_t cuda_shared_most(void);       // bytes of shared memory that a block may have
// Memory that a launch needs beside its arguments: device memory of at least `bytes` for one slot, kept for the next call.
// Grows while the device is idle, so only the first call with a size allocates.
enum cuda_slot { SLOT_MATMUL, SLOT_WHOLE, SLOT_ATTEND, SLOT_ATTEND_BACK, SLOT_NORM, SLOT_UPDATE, SLOT_HEAD, SLOT_EXPERTS, SLOT_BLOCKS, CUDA_SLOTS };
void *cuda_scratch(enum cuda_slot slot, size_t bytes);

// Memory for a weight: the GPU's, or, when that is nearly full, the host's where kernels read it. NULL with a reason.
void *cuda_weight_alloc(size_t bytes, struct err *err);
// What backend.h calls ceilings and unit (ceiling.cu), with so many bytes of memory to read.
int cuda_ceilings(const struct backend *b, struct ceiling to[CEILINGS_MOST], double seconds, size_t bytes, struct err *err);
const char *cuda_unit(enum dtype weight, enum precision precision);
// matmul and matmul_experts with weights of block formats (matmul_blocks.cu); shapes have been asserted.
void cuda_matmul_blocks(const struct matmul_args *a);
void cuda_matmul_experts_blocks(const struct matmul_experts_args *a);

// Each file's ops, written into the table.
void cuda_fill_ops(struct backend *b);      // ops.cu: rows by rows: norms, rope, glu, add, cross_entropy, ...
void cuda_fill_families(struct backend *b); // ops_families.cu: layernorm, bias, softcap, clamp; cuda_fill_ops calls it
void cuda_fill_updates(struct backend *b);  // ops_update.cu: sum_squares, update, adafactor
void cuda_fill_matmul(struct backend *b);   // matmul.cu: matmul, and the two below
void cuda_fill_matmul_back(struct backend *b);    // matmul_back.cu: matmul_dx, matmul_dw
void cuda_fill_matmul_experts(struct backend *b); // matmul_experts.cu: the three of experts
void cuda_fill_attend(struct backend *b);   // attend.cu: store_rows, attend, attend_back
void cuda_fill_experts(struct backend *b);  // experts.cu: route, route_back, group, mix, mix_back
void cuda_fill_branches(struct backend *b); // branches.cu: project, feed_forward, head_loss
void cuda_fill_embed(struct backend *b);    // embed.cu: weight_load, embed, embed_back, cast
#endif
