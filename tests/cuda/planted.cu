// planted.cu: the sum of planted.h by as many words of cuda.cuh as it can be made of, a product of a warpgroup, and the same with a fault.
#include "cuda/cuda.cuh"
#include "tests/cuda/planted.h"

enum { THREADS = 256 };

template <enum planted FAULT> __global__ void sums_kernel(float *sum, const float *numbers) {
    SHARED(float, copied, THREADS);
    SHARED(float, turned, THREADS);
    SHARED(float, total, 1);
    const int t = (int)threadIdx.x, lane = t % WARP;
    // 16 bytes a thread, by the first 64.
    if (t < THREADS / 4) cp_async16(copied + 4 * t, numbers + (size_t)blockIdx.x * THREADS + 4 * t, true);
    cp_async_commit();
    if (FAULT == PLANTED_COPY) {
        turned[t] = t < THREADS / 4 ? copied[4 * t] : 0; // too early
        cp_async_wait<0>();
    } else cp_async_wait<0>();
    if (FAULT != PLANTED_BARRIER) __syncthreads();
    float x = copied[THREADS - 1 - t];
    if (FAULT == PLANTED_COPY && t < THREADS / 4) x += 0 * turned[t];
    // Each lane takes its neighbour's number, which leaves the sum as it is.
    __syncthreads();
    turned[t] = x;
    if (FAULT != PLANTED_RACE_OF_WARPS) __syncwarp();
    x = turned[t / WARP * WARP + (lane + 1) % WARP];
    if (FAULT == PLANTED_DIVERGENT) {
        if (lane < WARP / 2) x = __shfl_xor_sync(0xffffffffu, x, 1);
    } else x = __shfl_xor_sync(0xffffffffu, x, 1);
    x = warp_sum(x);
    if (FAULT != PLANTED_ZEROING) {
        if (t == 0) total[0] = 0;
        __syncthreads();
    }
    if (FAULT == PLANTED_BARRIER_NOT_ALL_REACH) {
        if (t < THREADS / 2) __syncthreads();
        else
            __syncthreads();
    }
    for (int w = 0; w < THREADS / WARP; w++) {
        if (lane == 0 && t / WARP == w) total[0] += x;
        __syncthreads();
    }
    if (FAULT == PLANTED_OVERRUN && t == 0) total[1] = 1;
    if (FAULT == PLANTED_OVERREAD && t == 0) total[0] += 0 * turned[THREADS];
    if (t == 0) sum[blockIdx.x] = total[0];
}

extern "C" void planted_sums(enum planted fault, float *sum, const float *numbers, int blocks) {
    switch (fault) {
    case PLANTED_NOTHING: LAUNCH((sums_kernel<PLANTED_NOTHING>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_BARRIER: LAUNCH((sums_kernel<PLANTED_BARRIER>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_OVERRUN: LAUNCH((sums_kernel<PLANTED_OVERRUN>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_OVERREAD: LAUNCH((sums_kernel<PLANTED_OVERREAD>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_DIVERGENT: LAUNCH((sums_kernel<PLANTED_DIVERGENT>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_BARRIER_NOT_ALL_REACH: LAUNCH((sums_kernel<PLANTED_BARRIER_NOT_ALL_REACH>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_ZEROING: LAUNCH((sums_kernel<PLANTED_ZEROING>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_COPY: LAUNCH((sums_kernel<PLANTED_COPY>), blocks, THREADS, 0, sum, numbers); break;
    case PLANTED_RACE_OF_WARPS: LAUNCH((sums_kernel<PLANTED_RACE_OF_WARPS>), blocks, THREADS, 0, sum, numbers); break;
    }
}

// Four k16 steps of 64 terms, both tiles along.
template <enum planted_wgmma FAULT> __global__ void wgmma_kernel(float *out) {
    enum { TILE = 64 * 64 };
    SHARED_REST(uint16_t, given);
    const int t = (int)threadIdx.x, lane = t % WARP, warp = t / WARP;
    uint16_t *a = given + (-shared_address(given) & 1023) / 2 + (FAULT == PLANTED_WGMMA_ALIGN ? 64 : 0), *b = a + TILE;
    for (int i = t; i < TILE; i += (int)blockDim.x) {
        const int row = i / 64, k = i % 64, at = row * 64 + ((k / 8) ^ (row & 7)) * 8 + k % 8;
        a[at] = to_bf16((float)(row + k)), b[at] = to_bf16(row == k);
    }
    if (FAULT != PLANTED_WGMMA_PROXY || t != 77) fence_proxy_async();
    __syncthreads();
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 0;
    if (FAULT == PLANTED_WGMMA_WARPS && warp == 3) return;
    if (FAULT != PLANTED_WGMMA_FENCE) wgmma_fence();
    for (int s = 0; s < 4; s++) wgmma_bf16<64, false, false>(d, wgmma_matrix(a + 16 * s, 0, FAULT == PLANTED_WGMMA_STRIDE ? 512 : 1024), wgmma_matrix(b + 16 * s, 0, 1024));
    wgmma_commit();
    if (FAULT == PLANTED_WGMMA_EARLY && t == 5) a[0] = 0x4000;
    if (FAULT != PLANTED_WGMMA_WAIT) wgmma_wait<0>();
    for (int i = 0; i < 32; i++) out[(16 * warp + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
    wgmma_wait<0>();
}
extern "C" void planted_wgmma(enum planted_wgmma fault, float *out) {
    enum { BYTES = 2 * 64 * 64 * 2 + 2048 };
    switch (fault) {
    case PLANTED_WGMMA_NOTHING: LAUNCH((wgmma_kernel<PLANTED_WGMMA_NOTHING>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_PROXY: LAUNCH((wgmma_kernel<PLANTED_WGMMA_PROXY>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_FENCE: LAUNCH((wgmma_kernel<PLANTED_WGMMA_FENCE>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_WAIT: LAUNCH((wgmma_kernel<PLANTED_WGMMA_WAIT>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_EARLY: LAUNCH((wgmma_kernel<PLANTED_WGMMA_EARLY>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_STRIDE: LAUNCH((wgmma_kernel<PLANTED_WGMMA_STRIDE>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_ALIGN: LAUNCH((wgmma_kernel<PLANTED_WGMMA_ALIGN>), 1, WARPGROUP, BYTES, out); break;
    case PLANTED_WGMMA_WARPS: LAUNCH((wgmma_kernel<PLANTED_WGMMA_WARPS>), 1, WARPGROUP, BYTES, out); break;
    }
}
