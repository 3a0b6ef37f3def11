// kernels_held.h: rows into a cache, and out of it as floats. Part of kernels.h.
//
// How a cache lies is in kernels_cache.h. What is stored has the bits of core's conversions, so that a cache holds the
// numbers that rows of a file would; what the tile kernel reads are floats, made once per chunk.

// ---------------------------------------------------------------------------------------------------------------
// Storing.

// n floats as numbers of a cache, in the order of the file; the bits of core's conversions.
static void from_floats(enum dtype dtype, const float *x, void *to, int64_t n) {
    int64_t i = 0;
    if (dtype == DTYPE_F16 || dtype == DTYPE_BF16)
        for (; i + VW <= n; i += VW) {
            if (dtype == DTYPE_F16) v_store_f16((char *)to + 2 * i, v_load(x + i));
            else v_store_bf16((char *)to + 2 * i, v_load(x + i));
        }
    dtype_row(dtype)->from_f32(x + i, (char *)to + numbers_bytes(dtype, i), n - i);
}

// One head of one key into column j of its panel.
static void key_store(enum dtype dtype, const float *x, int64_t D, char *panel, int64_t j) {
    union {
        float f32[QK];
        uint16_t half[QK];
        struct block_q8_0 q8;
        struct block_q4_0 q4;
    } some;
    for (int64_t d = 0; d < D; d += QK) {
        const int64_t n = min_i64(QK, D - d);
        char *at = panel + PANEL * (is_block_format(dtype) ? numbers_bytes(dtype, d) : 0);
        from_floats(dtype, x + d, &some, n);
        if (dtype == DTYPE_F32) {
            for (int64_t l = 0; l < n; l++) ((float *)(void *)at)[(d + l) * PANEL + j] = some.f32[l];
        } else if (!is_block_format(dtype)) {
            for (int64_t l = 0; l < n; l++)
                ((uint16_t *)(void *)at)[(d + l) * PANEL + j] = some.half[l];
        } else if (dtype == DTYPE_Q8_0) {
            ((uint16_t *)(void *)at)[j] = some.q8.d;
            for (int l = 0; l < QK; l++) at[2 * PANEL + l * PANEL + j] = (char)some.q8.q[l];
        } else {
            ((uint16_t *)(void *)at)[j] = some.q4.d;
            for (int g = 0; g < 4; g++) { // nibble i of a word is number 8 g + i
                uint32_t word = 0;
                for (int i = 0; i < 8; i++)
                    word |= (uint32_t)(some.q4.q[(8 * g + i) % 16] >> (g < 2 ? 0 : 4) & 15) << 4 * i;
                ((uint32_t *)(void *)(at + 2 * PANEL))[g * PANEL + j] = word;
            }
        }
    }
}

// One head of one row j of values.
static void value_store(enum dtype dtype, const float *x, int64_t D, char *head, int64_t j) {
    const size_t codes = codes_bytes(dtype, D);
    char *to = head + (size_t)j * codes;
    if (!is_block_format(dtype)) {
        from_floats(dtype, x, to, D);
        return;
    }
    char *scales = head + KEYS * codes + (size_t)(j * (D / QK) * 2);
    union {
        struct block_q8_0 q8;
        struct block_q4_0 q4;
    } some;
    for (int64_t b = 0; b < D / QK; b++) {
        from_floats(dtype, x + b * QK, &some, QK);
        memcpy(scales + 2 * b, &some, 2); // both begin with it
        if (dtype == DTYPE_Q8_0) memcpy(to + b * QK, some.q8.q, QK);
        else memcpy(to + b * QK / 2, some.q4.q, QK / 2);
    }
}

static void store_rows_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct store_rows_args *a = arg;
    const enum dtype dtype = a->dst.dtype;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const int64_t row = a->rows[i], D = a->head_size, j = row % KEYS;
        const float *x = row_f32(&a->src, i);
        assert(row >= 0 && row < a->dst.rows);
        if (a->dst.layout == LAYOUT_ROWS) {
            from_floats(dtype, x, (char *)a->dst.data + (size_t)row * a->dst.row_bytes, a->src.cols);
            continue;
        }
        for (int64_t g = 0; g < a->src.cols / D; g++, x += D) {
            char *head = cache_head(&a->dst, row, g, D);
            if (a->side == CACHE_VALUES) value_store(dtype, x, D, head, j);
            else
                key_store(dtype, x, D, head + (size_t)(j / PANEL * PANEL) * numbers_bytes(dtype, D),
                          j % PANEL);
        }
    }
}

static void store_rows(const struct store_rows_args *a) {
    assert(is_f32(&a->src) && a->src.cols == a->dst.cols && is_cache(&a->dst, a->head_size));
    pool_for(a->src.rows, grain_of_rows(a->src.cols, 1 << 14), store_rows_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// As floats, for the tile kernel.

// Keys [j, j + 32) of a chunk, [D][32]: in place, or made in `to`.
static const float *keys_panel(const struct tensor *t, const char *head, int64_t j, int64_t D,
                               float *to) {
    const char *panel = head + (size_t)j * numbers_bytes(t->dtype, D);
    if (t->dtype == DTYPE_F32) return (const float *)(const void *)panel;
    if (!is_block_format(t->dtype)) {
        panel_unpack(t->dtype, (const unsigned char *)panel, 0, D, to);
        return to;
    }
    for (int64_t d = 0; d < D; d += QK, panel += PANEL * numbers_bytes(t->dtype, QK))
        for (int col = 0; col < PANEL; col += VW) {
            const vf scale = v_load_f16(panel + 2 * col);
            const char *codes = panel + 2 * PANEL;
            for (int k = 0; k < QK; k++) {
                vf x;
                if (t->dtype == DTYPE_Q8_0) x = v_load_i8(codes + k * PANEL + col);
                else x = nibble_value(v_right(v_load_words(codes + (k / 8 * PANEL + col) * 4), k % 8 * 4));
                v_store(to + (d + k) * PANEL + col, v_mul(scale, x));
            }
        }
    return to;
}

// The scales of values [0, end) of a chunk as floats, [KEYS][D / 32].
static void value_scales(enum dtype dtype, const char *head, int64_t D, int64_t end, float *to) {
    if (is_block_format(dtype))
        to_floats(DTYPE_F16, head + KEYS * codes_bytes(dtype, D), to, end * (D / QK));
}

INLINE void values_unpack_as(const enum dtype dtype, const char *head, int64_t D, int64_t begin,
                             int64_t end, const float *scales, float *to) {
    const size_t codes = codes_bytes(dtype, D);
    for (int64_t k = begin; k < end; k++)
        for (int64_t c = 0; c < D; c += VW)
            v_store(to + c / PANEL * PANEL * KEYS + k * PANEL + c % PANEL,
                    value_load(dtype, head + (size_t)k * codes, c, scales + k * (D / QK)));
}
// Values [begin, end) of a chunk to [D / 32][KEYS][32]; what is missing of the last 32 columns
// zeros.
static void values_unpack(const struct tensor *t, const char *head, int64_t D, int64_t begin,
                          int64_t end, float *scales, float *to) {
    value_scales(t->dtype, head, D, end, scales);
    if (D % PANEL == 0) {
        switch ((int)t->dtype) {
        case DTYPE_F32: values_unpack_as(DTYPE_F32, head, D, begin, end, scales, to); return;
        case DTYPE_F16: values_unpack_as(DTYPE_F16, head, D, begin, end, scales, to); return;
        case DTYPE_BF16: values_unpack_as(DTYPE_BF16, head, D, begin, end, scales, to); return;
        case DTYPE_Q8_0: values_unpack_as(DTYPE_Q8_0, head, D, begin, end, scales, to); return;
        default: values_unpack_as(DTYPE_Q4_0, head, D, begin, end, scales, to); return;
        }
    }
    for (int64_t k = begin; k < end; k++)
        for (int64_t d = 0; d < D; d += PANEL) {
            const int64_t cols = min_i64(PANEL, D - d);
            float *at = to + d * KEYS + k * PANEL;
            to_floats(t->dtype, head + numbers_bytes(t->dtype, k * D + d), at, cols);
            memset(at + cols, 0, (size_t)(PANEL - cols) * sizeof(float));
        }
}
