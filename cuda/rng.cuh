// rng.cuh: the random numbers of core/rng.c on the device, with the same bits: Philox4x32-10 once a row (Salmon, Moraes, Dror,
// Shaw 2011, section 3.3) and lowbias32 for a word of the row (Wellons 2018). Dropout is their only use on a GPU.
#ifndef LEHR_CUDA_RNG_CUH
#define LEHR_CUDA_RNG_CUH

#include "cuda/cuda.cuh"

// rng_row: the first two words of block (seed, stream, counter).
static __device__ __forceinline__ struct rng_row device_rng_row(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint32_t n0 = __umulhi(0xCD9E8D57u, c2) ^ c1 ^ k0, n2 = __umulhi(0xD2511F53u, c0) ^ c3 ^ k1;
        c1 = 0xCD9E8D57u * c2, c3 = 0xD2511F53u * c0;
        c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    struct rng_row row = {c0, c1};
    return row;
}
// The word that serves numbers i and i + 16 of a row, for i % 32 < 16: the one in its lower half, the other in its upper.
static __device__ __forceinline__ uint32_t device_rng_word(struct rng_row row, uint32_t i) {
    uint32_t x = row.a + (i / 32 * 16 + i % 16) * 0x9E3779B9u;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15 ^ row.b;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}
// rng_row_at
static __device__ __forceinline__ uint32_t device_rng_row_at(struct rng_row row, uint32_t i) {
    const uint32_t word = device_rng_word(row, i);
    return i % 32 < 16 ? word & 0xFFFF : word >> 16;
}

// dropout_row and dropout_factor of backend.h
static __device__ __forceinline__ struct rng_row device_dropout_row(const struct dropout &d, int64_t i, int64_t head) {
    return device_rng_row(d.seed, d.place + (uint64_t)head, (uint64_t)(d.row + i));
}
static __device__ __forceinline__ float device_dropout_factor(const struct dropout &d) { return 65536.f / (float)(65536 - d.below); }
#endif
