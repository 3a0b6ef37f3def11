// rng.cuh: the numbers of core/rng.c on the device, bit for bit: Philox4x32-10 (Salmon et al. 2011) for the key of a row, and the
// words of a row, of which each serves two numbers 16 apart.
#ifndef LEHR_CUDA_RNG_CUH
#define LEHR_CUDA_RNG_CUH

#include "cuda/cuda.cuh"

static __device__ __forceinline__ struct rng_row rng_row_device(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const uint32_t n0 = __umulhi(0xCD9E8D57u, c2) ^ c1 ^ k0, n2 = __umulhi(0xD2511F53u, c0) ^ c3 ^ k1;
        c1 = 0xCD9E8D57u * c2, c3 = 0xD2511F53u * c0;
        c0 = n0, c2 = n2;
    }
    return (struct rng_row){c0, c1};
}

// Word w of a row: the low half is number w / 16 * 32 + w % 16, the high half the one 16 behind it.
static __device__ __forceinline__ uint32_t rng_row_word_device(struct rng_row row, uint32_t w) {
    uint32_t x = row.a + w * 0x9E3779B9u;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15 ^ row.b;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}
static __device__ __forceinline__ uint32_t rng_row_at_device(struct rng_row row, uint32_t i) {
    const uint32_t x = rng_row_word_device(row, i / 32 * 16 + i % 16);
    return i % 32 < 16 ? x & 0xFFFF : x >> 16;
}
#endif
