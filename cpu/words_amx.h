// words_amx.h: bf16 numbers as the tiles of AMX-BF16 read them. Part of amx.c and of amx_attend.c.
//
//   A   a tile is 16 rows of 32 terms
//   B   a tile is 16 lines of 16 columns; line i holds terms 2 i and 2 i + 1 of every column side by side

enum {
    STEP = 32,        // terms of a tile
    TILE = 16 * STEP, // bf16 numbers in a tile of A or B
};

// The 32 numbers of two vectors, one after the other.
INLINE __m512i in_row(vf first, vf second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}
// Number by number from the one and the other.
INLINE __m512i in_pairs(vf even, vf odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, in_row(even, odd));
}
INLINE __m512i in_pairs_bf16(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// n floats as bf16, then zeros up to `room`, a multiple of 32.
INLINE void row_to_bf16(const float *from, int64_t n, int64_t room, uint16_t *to) {
    int64_t k = 0;
    for (; k + 32 <= n; k += 32)
        _mm512_storeu_si512(to + k, in_row(v_load(from + k), v_load(from + k + 16)));
    for (; k < room; k += 32) {
        const int64_t left = max_i64(0, n - k), more = max_i64(0, left - 16);
        _mm512_storeu_si512(to + k, in_row(v_load_n(from + k, left), v_load_n(from + k + 16, more)));
    }
}
