// kernels_drop.h: who is dropped, a vector at a time. Part of kernels.h, and of amx_attend.c.
//
// The words are those of core/rng.c (rng_row_at), which are whole numbers, so every level drops the same. 16 words make the
// factors of 32 numbers: their low halves those of the first 16, their high halves those of the others.

// The words w to w + VW of a row.
INLINE vu drop_words(struct rng_row row, uint32_t w) {
    static const uint32_t count[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vu x = ((vu)v_load_words(count) + w) * 0x9E3779B9u + row.a;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15 ^ row.b;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}
// kept where a number is, 0 where it is dropped.
INLINE vf drop_low(vu words, vu below, vf kept) { return (vf)((vu)((words & 0xFFFF) >= below) & (vu)kept); }
INLINE vf drop_high(vu words, vu below, vf kept) { return (vf)((vu)(words >> 16 >= below) & (vu)kept); }

// x[c] *= factor of number first + c, for c in [0, n) and some behind them; first a multiple of 32.
INLINE void drop_run(struct rng_row row, vu below, vf kept, int64_t first, int64_t n, float *x) {
    for (int64_t c = 0; c < n; c += 32)
#pragma GCC unroll 4
        for (int v = 0; v < 16; v += VW) {
            const vu words = drop_words(row, (uint32_t)((first + c) / 2 + v));
            v_store(x + c + v, v_mul(drop_low(words, below, kept), v_load(x + c + v)));
            v_store(x + c + v + 16, v_mul(drop_high(words, below, kept), v_load(x + c + v + 16)));
        }
}
