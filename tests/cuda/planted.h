// planted.h: kernels with one fault each, for showing that the fault is found (test_planted.c).
#ifndef LEHR_TESTS_PLANTED_H
#define LEHR_TESTS_PLANTED_H

#include "backend.h"

enum planted {
    PLANTED_NOTHING,
    PLANTED_BARRIER,   // threads read what others write without waiting for them
    PLANTED_OVERRUN,   // one number behind a shared array is written
    PLANTED_OVERREAD,  // and one is read (found by ASan, and as a NaN)
    PLANTED_DIVERGENT, // half of a warp shuffles, for the whole of it
    PLANTED_BARRIER_NOT_ALL_REACH, // and half of a block comes to a barrier, the other half to another one
    PLANTED_ZEROING,   // sums into shared memory that begins as anything
    PLANTED_COPY,      // an asynchronous copy is read before it has come
    PLANTED_RACE_OF_WARPS, // lanes hand numbers on through shared memory without __syncwarp
};
// Faults of a product by a warpgroup.
enum planted_wgmma {
    PLANTED_WGMMA_NOTHING,
    PLANTED_WGMMA_PROXY,  // a thread stores into a tile and does not fence it
    PLANTED_WGMMA_FENCE,  // sums that the threads made are handed over without a fence
    PLANTED_WGMMA_WAIT,   // sums are used before the wait
    PLANTED_WGMMA_EARLY,  // a tile is written while it is multiplied
    PLANTED_WGMMA_STRIDE, // a descriptor tells another layout than the tile has
    PLANTED_WGMMA_ALIGN,  // a tile does not begin at a multiple of 1024
    PLANTED_WGMMA_WARPS,  // only three warps come
};
#ifdef __cplusplus
extern "C" {
#endif
// out[64,64] = a[64,64] b[64,64]^T: a[i][k] = i + k, b[i][k] = i == k. All on the device.
void planted_wgmma(enum planted_wgmma fault, float *out);
// Sums of 256 numbers, in blocks: sum[b] = numbers[256 b] + ... + numbers[256 b + 255]. All on the device.
void planted_sums(enum planted fault, float *sum, const float *numbers, int blocks);
#ifdef __cplusplus
}
#endif

#endif
