// cuda_on_cpu.h: what the words of CUDA mean on a processor, so that cuda/*.cu compiles as C++ and is tested without a GPU.
//
// A launch runs the blocks of its grid one after the other, in an order drawn from a seed, and each thread of a block as a fiber:
// it runs until it must wait, at a barrier for its block or at a shuffle, vote or product of fragments for its warp; who runs
// next is drawn, too. So a barrier that is missing shows as a wrong result with some seeds, and these are found always:
//   - threads that wait for each other for ever: a barrier or a shuffle that not all reach, or that some reach elsewhere
//   - shared memory written outside its arrays (canaries between them; under ASan reads, too), or more of it than there is
//   - shared memory read before it is written: it begins as NaN. Device memory, too, where nobody zeroes it
//   - copies into shared memory (cp.async) that nobody waited for: they arrive with the wait, before that there is NaN
//   - products of warpgroups (wgmma) that nobody waited for: their sums are NaN until the wait; tiles written before it; no fence of
//     the writers before the barrier, where this is stricter than a GPU: every thread must have called it since the barrier before
//   - device memory touched by the host: it may only be read and written while a kernel runs
//   - device memory touched behind its end: an unmapped page lies there
// What it cannot tell: memory ordering weaker than this processor's, bank conflicts, speed.
//
// Fragments follow the PTX ISA ("Matrix fragments for mma.m16n8k16" and others) and sum up in f32.
#ifndef LEHR_CUDA_ON_CPU_H
#define LEHR_CUDA_ON_CPU_H

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
#define __CUDA_ARCH__ 900

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(int64_t x_ = 1, int64_t y_ = 1, int64_t z_ = 1) : x((unsigned)x_), y((unsigned)y_), z((unsigned)z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---------------------------------------------------------------------------------------------------------------
// The machine (cuda_on_cpu.cpp).

struct on_cpu_thread { // the thread that runs now, and its block
    dim3 thread, block, threads, blocks;
};
extern struct on_cpu_thread on_cpu_now;
#define threadIdx (on_cpu_now.thread)
#define blockIdx (on_cpu_now.block)
#define blockDim (on_cpu_now.threads)
#define gridDim (on_cpu_now.blocks)

void on_cpu_launch(const char *kernel, dim3 blocks, dim3 threads, size_t rest_bytes, const std::function<void()> &thread);
// site: a line of the source, by which waiting threads must agree.
void on_cpu_barrier(int site);
// Every lane of mask brings `bytes` (up to 64) bytes; each receives the 32 lanes' bytes, 64 apart. Only lanes of mask have any.
const unsigned char *on_cpu_meet(int site, unsigned mask, const void *bring, size_t bytes);
void *on_cpu_shared(const void *key, size_t bytes, const char *name);
void *on_cpu_rest(void); // the bytes that the launch asked for
void on_cpu_copy(void *shared, const void *global, bool present);
void on_cpu_commit(void);
void on_cpu_wait(int but);
int on_cpu_lane(void);
uint32_t on_cpu_address(const void *shared); // of shared memory, as PTX has it
void on_cpu_group_fence(void);
void on_cpu_group_multiply(float *d, int columns, uint64_t a, uint64_t b, bool across_a, bool across_b);
void on_cpu_group_commit(void);
void on_cpu_group_wait(int but);
void on_cpu_proxy_fence(void);
bool on_cpu_has_wgmma(void);
// Launches, copies inside the device's memory and zeroing are from here on not done but kept, until end, which gives the list of
// them; it is done as often as wanted.
struct on_cpu_list;
void on_cpu_keep(void);
struct on_cpu_list *on_cpu_kept(void);
void on_cpu_again(const struct on_cpu_list *list);
void on_cpu_drop(struct on_cpu_list *list);
// What a test chooses and asks: the seed of every order drawn from here on (0: threads in order), and how many launches there were.
extern "C" void on_cpu_seed(uint64_t seed);
extern "C" uint64_t on_cpu_launches(void);
extern "C" void on_cpu_wgmma(bool yes); // is this a GPU that has it? true at first

#define LAUNCH_NAME_(...) __VA_ARGS__
// Arguments are what they are now, also when the launch is kept for later.
#define LAUNCH(kernel, grid, block, bytes, ...) \
    on_cpu_start(#kernel, dim3(grid), dim3(block), (size_t)(bytes), LAUNCH_NAME_ kernel, __VA_ARGS__)
template <class... P, class... A> static inline void on_cpu_start(const char *name, dim3 grid, dim3 block, size_t bytes, void (*kernel)(P...), A... given) {
    on_cpu_launch(name, grid, block, bytes, [=]() { kernel(given...); });
}
#define SHARED(type, name, count)             \
    static const char name##_key_ = 0;        \
    type *const name = (type *)on_cpu_shared(&name##_key_, sizeof(type) * (size_t)(count), #name)
#define SHARED_REST(type, name) type *const name = (type *)on_cpu_rest()

#define __syncthreads() on_cpu_barrier(__LINE__)
#define __syncwarp(...) on_cpu_syncwarp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
static inline void on_cpu_syncwarp(int site, unsigned mask = 0xffffffffu) { on_cpu_meet(site, mask, &site, 0); }
static inline void __threadfence(void) {}
static inline void __trap(void) { abort(); }

template <class T> static inline T on_cpu_take(const unsigned char *met, int lane) {
    T v;
    memcpy(&v, met + 64 * lane, sizeof v);
    return v;
}
template <class T> static inline T on_cpu_shuffle(int site, unsigned mask, T v, int from) {
    return on_cpu_take<T>(on_cpu_meet(site, mask, &v, sizeof v), from);
}
#define __shfl_sync(mask, v, ...) on_cpu_shfl(__LINE__, mask, v, __VA_ARGS__)
#define __shfl_xor_sync(mask, v, ...) on_cpu_shfl_xor(__LINE__, mask, v, __VA_ARGS__)
#define __shfl_up_sync(mask, v, ...) on_cpu_shfl_up(__LINE__, mask, v, __VA_ARGS__)
#define __shfl_down_sync(mask, v, ...) on_cpu_shfl_down(__LINE__, mask, v, __VA_ARGS__)
template <class T> static inline T on_cpu_shfl(int site, unsigned mask, T v, int from, int width = 32) {
    const int lane = on_cpu_lane();
    return on_cpu_shuffle(site, mask, v, lane / width * width + (from & (width - 1)));
}
template <class T> static inline T on_cpu_shfl_xor(int site, unsigned mask, T v, int far, int width = 32) {
    const int lane = on_cpu_lane(), to = lane ^ far;
    return on_cpu_shuffle(site, mask, v, to / width <= lane / width ? to : lane);
}
template <class T> static inline T on_cpu_shfl_up(int site, unsigned mask, T v, int far, int width = 32) {
    const int lane = on_cpu_lane();
    return on_cpu_shuffle(site, mask, v, lane % width >= far ? lane - far : lane);
}
template <class T> static inline T on_cpu_shfl_down(int site, unsigned mask, T v, int far, int width = 32) {
    const int lane = on_cpu_lane();
    return on_cpu_shuffle(site, mask, v, lane % width + far < width ? lane + far : lane);
}
#define __ballot_sync(mask, yes) on_cpu_ballot(__LINE__, mask, yes)
#define __any_sync(mask, yes) (on_cpu_ballot(__LINE__, mask, yes) != 0)
#define __all_sync(mask, yes) (on_cpu_ballot(__LINE__, mask, yes) == (unsigned)(mask))
static inline unsigned on_cpu_ballot(int site, unsigned mask, bool yes) {
    const unsigned char *met = on_cpu_meet(site, mask, &yes, sizeof yes);
    unsigned votes = 0;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1 && on_cpu_take<bool>(met, l)) votes |= 1u << l;
    return votes;
}

// ---------------------------------------------------------------------------------------------------------------
// Arithmetic.

static inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float __int_as_float(int32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline int32_t __float_as_int(float f) { int32_t u; memcpy(&u, &f, 4); return u; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline int __float2int_rn(float a) { return (int)rintf(a); }
static inline float rsqrtf(float a) { return 1 / sqrtf(a); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t pick = s >> 4 * i & 15;
        uint32_t byte = (uint32_t)(both >> 8 * (pick & 7)) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << 8 * i;
    }
    return r;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)((unsigned)a >> 8 * i) * (int)(int8_t)((unsigned)b >> 8 * i);
    return c;
}
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T atomicAdd(T *p, T v) { T was = *p; *p = was + v; return was; }
template <class T> static inline T atomicMax(T *p, T v) { T was = *p; *p = was > v ? was : v; return was; }
static inline unsigned atomicInc(unsigned *p, unsigned most) { unsigned was = *p; *p = was >= most ? 0 : was + 1; return was; }

// ---------------------------------------------------------------------------------------------------------------
// Fragments and copies: the functions of cuda.cuh.

static inline float on_cpu_half(uint32_t pair, int which) { return __uint_as_float((which ? pair >> 16 : pair & 0xffffu) << 16); } // of bf16
static inline int on_cpu_byte(uint32_t four, int which) { return (int8_t)(four >> 8 * which); }

struct on_cpu_factors { uint32_t a[4], b[2]; };
// Numbers (row, k) of a and (k, column) of b out of the lanes' registers; `per` of them to a register.
template <class N> static inline N on_cpu_a(const unsigned char *met, int row, int k, int per, N (*part)(uint32_t, int)) {
    const int half = 4 * per, lane = row % 8 * 4 + k % half / per;
    return part(on_cpu_take<on_cpu_factors>(met, lane).a[row / 8 + 2 * (k / half)], k % per);
}
template <class N> static inline N on_cpu_b(const unsigned char *met, int k, int column, int per, N (*part)(uint32_t, int)) {
    const int half = 4 * per, lane = column * 4 + k % half / per;
    return part(on_cpu_take<on_cpu_factors>(met, lane).b[k / half], k % per);
}
template <class N> static inline void on_cpu_mma(int site, N d[4], const uint32_t a[4], const uint32_t b[2], int per, N (*part)(uint32_t, int)) {
    on_cpu_factors mine;
    memcpy(mine.a, a, sizeof mine.a), memcpy(mine.b, b, sizeof mine.b);
    const unsigned char *met = on_cpu_meet(site, 0xffffffffu, &mine, sizeof mine);
    const int g = on_cpu_lane() / 4, t = on_cpu_lane() % 4;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 8 * per; k++)
            d[i] += on_cpu_a(met, g + 8 * (i / 2), k, per, part) * on_cpu_b(met, k, 2 * t + i % 2, per, part);
}
#define mma_bf16(d, a, b) on_cpu_mma<float>(__LINE__, d, a, b, 2, on_cpu_half)
#define mma_s8(d, a, b) on_cpu_mma<int32_t>(__LINE__, d, a, b, 4, on_cpu_byte)
#define mma_s8_16(d, a0, a1, b) on_cpu_mma_half(__LINE__, d, a0, a1, b)
static inline void on_cpu_mma_half(int site, int32_t d[4], uint32_t a0, uint32_t a1, uint32_t b) {
    const uint32_t a[4] = {a0, a1, 0, 0}, with[2] = {b, 0};
    on_cpu_mma<int32_t>(site, d, a, with, 4, on_cpu_byte);
}

static inline void on_cpu_ldmatrix(int site, uint32_t r[4], const void *row, bool trans) {
    assert((uintptr_t)row % 16 == 0);
    const unsigned char *met = on_cpu_meet(site, 0xffffffffu, &row, sizeof row);
    const int g = on_cpu_lane() / 4, t = on_cpu_lane() % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t two[2];
        for (int i = 0; i < 2; i++) {
            const int from = trans ? 2 * t + i : g, at = trans ? g : 2 * t + i;
            two[i] = on_cpu_take<const uint16_t *>(met, 8 * m + from)[at];
        }
        r[m] = (uint32_t)two[0] | (uint32_t)two[1] << 16;
    }
}
#define ldmatrix_x4(r, row) on_cpu_ldmatrix(__LINE__, r, row, false)
#define ldmatrix_x4_trans(r, row) on_cpu_ldmatrix(__LINE__, r, row, true)
static inline void cp_async16(void *shared, const void *global, bool present) { on_cpu_copy(shared, global, present); }
static inline void cp_async_commit(void) { on_cpu_commit(); }
template <int N> static inline void cp_async_wait(void) { on_cpu_wait(N); }

static inline uint32_t shared_address(const void *p) { return on_cpu_address(p); }
static inline void fence_proxy_async(void) { on_cpu_proxy_fence(); }
static inline void wgmma_fence(void) { on_cpu_group_fence(); }
static inline void wgmma_commit(void) { on_cpu_group_commit(); }
template <int N> static inline void wgmma_wait(void) { on_cpu_group_wait(N); }
template <int N, bool ACROSS_A, bool ACROSS_B> static inline void wgmma_bf16(float d[N / 2], uint64_t a, uint64_t b) {
    on_cpu_group_multiply(d, N, a, b, ACROSS_A, ACROSS_B);
}

// ---------------------------------------------------------------------------------------------------------------
// As much of the runtime as cuda/cuda.cu calls. Everything is done when the call returns.

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset(void *to, int value, size_t bytes);
#endif
