// kernels_cache.h: how keys and values lie in a cache. Part of kernels.h, and of amx_attend.c.
//
// A cache (LAYOUT_DEVICE) is cut into chunks of KEYS rows. A chunk holds its kv heads one after the
// other, so that what one head needs of it is one run of memory:
//
//   keys     KEYS / 32 panels of 32 keys, vectors across keys, nothing to transpose: [D][32] numbers;
//            block formats per 32 of D: 32 scales (f16), then [32][32] codes of Q8_0, or [4][32]
//            words of Q4_0, nibble i of word g being number 8g + i
//   values   [KEYS][D] numbers, vectors across the head size. Block formats: [KEYS][D] codes, in
//            the order of the file, then [KEYS][D / 32] scales (f16)
//
// kernels_held.h writes them and turns them into floats, kernels_few.h multiplies them as they lie.

enum {
    KEYS = CACHE_ROWS, // of a chunk
};
static_assert((int)KEYS % (int)PANEL == 0, "panels divide chunks");

INLINE int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }
INLINE bool is_block_format(enum dtype d) { return d == DTYPE_Q8_0 || d == DTYPE_Q4_0; }
// Bytes of n numbers; of their codes alone.
INLINE size_t numbers_bytes(enum dtype d, int64_t n) {
    return d == DTYPE_F32    ? (size_t)n * 4
           : d == DTYPE_Q8_0 ? (size_t)n / QK * sizeof(struct block_q8_0)
           : d == DTYPE_Q4_0 ? (size_t)n / QK * sizeof(struct block_q4_0)
                             : (size_t)n * 2;
}
// Low nibble of each lane as Q4_0 means it.
INLINE vf nibble_value(vi w) { return v_sub(v_float(v_and(w, 15)), v_set1(8)); }
INLINE size_t codes_bytes(enum dtype d, int64_t n) {
    return d == DTYPE_Q8_0 ? (size_t)n : d == DTYPE_Q4_0 ? (size_t)n / 2 : numbers_bytes(d, n);
}

// A head's share of the chunk that row j lies in.
INLINE char *cache_head(const struct tensor *t, int64_t j, int64_t g, int64_t D) {
    return (char *)t->data + (size_t)(j / KEYS * KEYS) * t->row_bytes +
           (size_t)(g * KEYS) * numbers_bytes(t->dtype, D);
}
INLINE bool is_cache(const struct tensor *t, int64_t D) {
    const enum dtype d = t->dtype;
    if (d != DTYPE_F32 && d != DTYPE_F16 && d != DTYPE_BF16 && !is_block_format(d)) return false;
    if (t->mats != 1 || D < 1 || t->cols % D || (is_block_format(d) && D % QK)) return false;
    if (t->layout == LAYOUT_ROWS) return d != DTYPE_F32 || t->row_bytes % sizeof(float) == 0;
    return t->rows % KEYS == 0 && t->row_bytes == (size_t)(t->cols / D) * numbers_bytes(d, D);
}

// Term d of keys [col, col + VW) of a panel.
INLINE vf key_load(const enum dtype dtype, const char *panel, int64_t d, int col) {
    if (dtype == DTYPE_F32) return v_load((const float *)(const void *)panel + d * PANEL + col);
    if (dtype == DTYPE_F16) return v_load_f16(panel + 2 * (d * PANEL + col));
    if (dtype == DTYPE_BF16) return v_load_bf16(panel + 2 * (d * PANEL + col));
    const char *block = panel + PANEL * numbers_bytes(dtype, d / QK * QK), *codes = block + 2 * PANEL;
    const vf scale = v_load_f16(block + 2 * col);
    const int k = (int)(d % QK);
    if (dtype == DTYPE_Q8_0) return v_mul(scale, v_load_i8(codes + k * PANEL + col));
    return v_mul(scale, nibble_value(v_right(v_load_words(codes + (k / 8 * PANEL + col) * 4), k % 8 * 4)));
}

// Vector of columns [c, c + VW) of a row of values.
INLINE vf value_load(const enum dtype dtype, const char *row, int64_t c, const float *scales) {
    if (dtype == DTYPE_F32) return v_load((const float *)(const void *)row + c);
    if (dtype == DTYPE_F16) return v_load_f16(row + 2 * c);
    if (dtype == DTYPE_BF16) return v_load_bf16(row + 2 * c);
    const vf d = v_set1(scales[c / QK]);
    if (dtype == DTYPE_Q8_0) return v_mul(d, v_load_i8(row + c));
    const vi bytes = v_load_bytes(row + c / QK * (QK / 2) + c % (QK / 2));
    return v_mul(d, nibble_value(c % QK < QK / 2 ? bytes : v_right(bytes, 4)));
}
