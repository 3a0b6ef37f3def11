// planted.h: kernels with one fault each, for showing that the fault is found (test_planted.c).
#ifndef LEHR_TESTS_PLANTED_H
#define LEHR_TESTS_PLANTED_H

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
#ifdef __cplusplus
extern "C"
#endif
// Sums of 256 numbers, in blocks: sum[b] = numbers[256 b] + ... + numbers[256 b + 255]. All on the device.
void planted_sums(enum planted fault, float *sum, const float *numbers, int blocks);

#endif
