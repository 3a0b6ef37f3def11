// words_bytes.h: a vector `vb` of 32 bytes and what packing does with it (kernels_pack.h).
//
// Included by the words of AVX2 and of AVX-512, after INLINE: both have these instructions, and
// rows of blocks are too short for wider ones. Names say what happens to every part of so many bits.

typedef __m256i vb;

INLINE vb b_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE vb b_load_halves(const void *p, const void *q) { // 16 bytes of each
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(p)), _mm_loadu_si128(q),
                                   1);
}
INLINE void b_store(void *p, vb a) { _mm256_storeu_si256(p, a); }
INLINE vb b_set1(int byte) { return _mm256_set1_epi8((char)byte); }
INLINE vb b_set1_words(int32_t x) { return _mm256_set1_epi32(x); }
INLINE vb b_and(vb a, vb b) { return _mm256_and_si256(a, b); }
INLINE vb b_or(vb a, vb b) { return _mm256_or_si256(a, b); }
INLINE vb b_xor(vb a, vb b) { return _mm256_xor_si256(a, b); }
INLINE vb b_right_16(vb a, int n) { return _mm256_srli_epi16(a, n); }
INLINE vb b_left_16(vb a, int n) { return _mm256_slli_epi16(a, n); }
INLINE vb b_right_32(vb a, int n) { return _mm256_srli_epi32(a, n); }
INLINE vb b_left_32(vb a, int n) { return _mm256_slli_epi32(a, n); }
INLINE vb b_right_64(vb a, int n) { return _mm256_srli_epi64(a, n); }
INLINE uint32_t b_top_bits(vb a) { return (uint32_t)_mm256_movemask_epi8(a); }
// In each half: eight bytes of a, then eight of b, out of parts of 16 bits below 256.
INLINE vb b_narrow(vb a, vb b) { return _mm256_packus_epi16(a, b); }
// In each half: the even words of a, then those of b.
INLINE vb b_even_words(vb a, vb b) {
    return _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
// In every eight bytes: those of even place first, then the others.
INLINE vb b_unzip_8(vb a) {
    return _mm256_shuffle_epi8(
        a, _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2, 4, 6, 1, 3,
                            5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
}
