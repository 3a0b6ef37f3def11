// rng.c: counter-based random numbers, and the hash for checksums.
//
// Philox4x32-10: ten rounds of two 32x32 multiplications turn (key, counter) into four words. The key is the seed, the
// counter is (counter, stream), so every number has an address and nothing needs to be saved to resume.
// Source: Salmon, Moraes, Dror, Shaw 2011, section 3.3; known answers are in tests/test_core.c.
#include "core/core.h"

#include <math.h>
#include <string.h>

void rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; // golden ratio
        k1 += 0xBB67AE85u; // sqrt(3) - 1
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t w[4];
    rng_block(seed, stream, counter, w);
    return (uint64_t)w[1] << 32 | w[0];
}

// 52 bits and a half step: symmetric in (0,1), so that neither log(u) nor log(1-u) is ever infinite.
static double unit(uint32_t high, uint32_t low) {
    uint64_t bits = ((uint64_t)high << 32 | low) >> 12;
    return ((double)bits + 0.5) * 0x1p-52;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t w[4];
    rng_block(seed, stream, counter, w);
    return unit(w[1], w[0]);
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t w[4];
    rng_block(seed, stream, counter, w);
    return sqrt(-2 * log(unit(w[1], w[0]))) * cos(6.283185307179586 * unit(w[3], w[2]));
}

double rng_gumbel(uint64_t seed, uint64_t stream, uint64_t counter) {
    return -log(-log(rng_uniform(seed, stream, counter)));
}

uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n) {
    assert(n > 0);
    return (uint64_t)((unsigned __int128)rng_u64(seed, stream, counter) * n >> 64);
}

struct rng_row rng_row(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t w[4];
    rng_block(seed, stream, counter, w);
    return (struct rng_row){w[0], w[1]};
}

// Words of 32 bits by the mixer lowbias32 (Wellons 2018, "Prospecting for Hash Functions") with half of the key before it and
// half inside, so that no row is a shifted piece of another. A word serves two numbers 16 apart, so that vectors of any
// width up to 16 words make them side by side; cpu/kernels_drop.h has the same lines for these.
uint32_t rng_row_at(struct rng_row row, uint32_t i) {
    uint32_t x = row.a + (i / 32 * 16 + i % 16) * 0x9E3779B9u;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15 ^ row.b;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return i % 32 < 16 ? x & 0xFFFF : x >> 16;
}

uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    assert(index < n);
    // A Feistel network permutes [0, 4^half); walking it until the value is below n permutes [0, n). 4^half < 4n, so
    // the walk takes fewer than 4 rounds on average.
    int half = 1;
    while (half < 32 && (uint64_t)1 << (2 * half) < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = index;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 8; round++) {
            uint64_t next = left ^ (rng_u64(seed, stream ^ (round + 1) << 56, right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}

// Two lanes of multiply-fold over 16 bytes at a time; length and seed go in at the ends. Passes what a checksum
// needs: every flipped bit changes the result, and lengths matter.
static uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    const uint64_t odd1 = 0xA0761D6478BD642Full, odd2 = 0xE7037ED1A0B428DBull;
    uint64_t h = seed ^ odd1, w[2];
    size_t left = n;
    for (; left >= 16; left -= 16, p += 16) {
        memcpy(w, p, 16);
        h = fold(w[0] ^ odd2 ^ h, w[1] ^ odd1 ^ (h << 32 | h >> 32)) + odd2;
    }
    w[0] = w[1] = 0;
    if (left) memcpy(w, p, left);
    h = fold(w[0] ^ odd2 ^ h, w[1] ^ odd1 ^ (h << 32 | h >> 32)) + odd2;
    return fold(h ^ odd1, (uint64_t)n ^ odd2);
}
