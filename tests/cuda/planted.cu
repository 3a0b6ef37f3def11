// planted.cu: the sum of planted.h by as many words of cuda.cuh as it can be made of, and the same with a fault in it.
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
