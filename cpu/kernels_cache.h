// kernels_cache.h: how keys and values lie in a cache, and the products of few rows that read them
// there. Part of kernels.h.
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
// Up to FEW_PAIRS queries read codes and halves in registers; for more a panel is converted once
// and the tile kernel runs over it. Both make the same chains of the same numbers.

enum {
    KEYS = CACHE_ROWS, // of a chunk
    FEW_PAIRS = 4,
    FEW_VECTORS = VW == 16 ? 4 : 2, // side by side
};
static_assert((int)KEYS <= (int)BLOCK && (int)KEYS % (int)PANEL == 0, "panels divide chunks");

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

// ---------------------------------------------------------------------------------------------------------------
// Few queries, from the cache as it lies.

// sum[r][i] = chain over d < D of q[r stride + d] * key, for FEW_VECTORS vectors of keys; vector i
// is columns col[i].. of panel[i].
INLINE void few_scores(const enum dtype dtype, const char *const *panel, const int *col, int64_t D,
                       const float *q, int64_t stride, const int R,
                       vf sum[FEW_PAIRS][FEW_VECTORS]) {
    const int bytes = dtype == DTYPE_F32 ? 4 : 2;
    vf scale[FEW_VECTORS];
    vi word[FEW_VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int i = 0; i < FEW_VECTORS; i++) sum[r][i] = v_zero();
    for (int64_t block = 0; block < D; block += QK) {
        const size_t at = PANEL * numbers_bytes(dtype, block); // Q4_0: a word has 8 nibbles
        const int64_t terms = min_i64(QK, D - block);
        if (is_block_format(dtype)) {
#pragma GCC unroll 4
            for (int i = 0; i < FEW_VECTORS; i++)
                scale[i] = v_load_f16(panel[i] + at + 2 * col[i]);
        }
        for (int64_t eight = 0; eight < terms; eight += 8) {
            if (dtype == DTYPE_Q4_0) {
#pragma GCC unroll 4
                for (int i = 0; i < FEW_VECTORS; i++)
                    word[i] =
                        v_load_words(panel[i] + at + (2 + eight / 2) * PANEL + 4 * col[i]);
            }
            for (int64_t k = eight; k < min_i64(eight + 8, terms); k++) {
#pragma GCC unroll 4
                for (int i = 0; i < FEW_VECTORS; i++) {
                    vf x;
                    if (dtype == DTYPE_Q8_0) {
                        x = v_mul(scale[i], v_load_i8(panel[i] + at + (2 + k) * PANEL + col[i]));
                    } else if (dtype == DTYPE_Q4_0) {
                        x = v_mul(scale[i], nibble_value(word[i]));
                        word[i] = v_right(word[i], 4);
                    } else {
                        x = value_load(dtype, panel[i] + at + k * PANEL * bytes, col[i], NULL);
                    }
#pragma GCC unroll 4
                    for (int r = 0; r < R; r++)
                        sum[r][i] = v_fma(v_set1(q[r * stride + block + k]), x, sum[r][i]);
                }
            }
        }
    }
}

// sum[r][i] = chain over keys [begin, end) of p[r KEYS + key] * value, for N vectors of columns
// from c on. Rows of values are `next` bytes apart.
INLINE void few_values(const enum dtype dtype, const char *rows, size_t next, int64_t c,
                       int64_t begin, int64_t end, const float *scales, int64_t scales_next,
                       const float *p, const int R, const int N, vf sum[FEW_PAIRS][FEW_VECTORS]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) sum[r][i] = v_zero();
    const int64_t in = FEW_VECTORS * VW % QK ? c % QK : 0; // where c stands in its block
    const char *row = rows + (size_t)begin * next + codes_bytes(dtype, c - in);
    for (int64_t j = begin; j < end; j++, row += next) {
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) {
            const vf x = value_load(dtype, row, in + i * VW, scales + j * scales_next + c / QK);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) sum[r][i] = v_fma(v_set1(p[r * KEYS + j]), x, sum[r][i]);
        }
    }
}

struct few {
    const char *const *panel; // scores
    const int *col;
    int64_t D, stride;
    const float *q;
    const char *rows; // values
    size_t next;
    int64_t c, begin, end, scales_next;
    const float *scales, *p;
};
#define FEW_CASE(dtype, R)                                                                         \
    case R:                                                                                        \
        if (f->panel) few_scores(dtype, f->panel, f->col, f->D, f->q, f->stride, R, sum);          \
        else                                                                                       \
            few_values(dtype, f->rows, f->next, f->c, f->begin, f->end, f->scales, f->scales_next, \
                       f->p, R, FEW_VECTORS, sum);                                                 \
        break;
#define FEW_OF(name, dtype)                                                                        \
    static void name(const struct few *f, int64_t pairs, vf sum[FEW_PAIRS][FEW_VECTORS]) {         \
        switch (pairs) {                                                                           \
            FEW_CASE(dtype, 1) FEW_CASE(dtype, 2) FEW_CASE(dtype, 3) FEW_CASE(dtype, 4)            \
        }                                                                                          \
    }
FEW_OF(few_f32, DTYPE_F32)
FEW_OF(few_f16, DTYPE_F16)
FEW_OF(few_bf16, DTYPE_BF16)
FEW_OF(few_q8_0, DTYPE_Q8_0)
FEW_OF(few_q4_0, DTYPE_Q4_0)
typedef void few_fn(const struct few *f, int64_t pairs, vf sum[FEW_PAIRS][FEW_VECTORS]);
static few_fn *few_of(enum dtype d) {
    return d == DTYPE_F32    ? few_f32
           : d == DTYPE_F16  ? few_f16
           : d == DTYPE_BF16 ? few_bf16
           : d == DTYPE_Q8_0 ? few_q8_0
                             : few_q4_0;
}
// Whole vectors side by side, and on blocks.
static bool few_fits(int64_t pairs, int64_t D) {
    return pairs <= FEW_PAIRS && D % (FEW_VECTORS * VW) == 0 && D <= BLOCK;
}

// Scores of keys [begin, end) of a chunk, whole panels, to scores[KEYS / 32][pairs_max][32].
static void few_scores_run(const struct tensor *t, const char *head, int64_t begin, int64_t end,
                           int64_t D, const float *q, int64_t pairs, float *scores,
                           int64_t pairs_max) {
    few_fn *const run = few_of(t->dtype);
    for (int64_t j = begin; j < end; j += FEW_VECTORS * VW) {
        const char *panel[FEW_VECTORS];
        int col[FEW_VECTORS];
        vf sum[FEW_PAIRS][FEW_VECTORS];
        for (int i = 0; i < FEW_VECTORS; i++) { // a vector past the end repeats the first
            const int64_t at = j + i * VW < end ? j + i * VW : j;
            panel[i] = head + (size_t)(at / PANEL * PANEL) * numbers_bytes(t->dtype, D);
            col[i] = (int)(at % PANEL);
        }
        run(&(struct few){.panel = panel, .col = col, .D = D, .q = q, .stride = round_up(D, PANEL)},
            pairs, sum);
        for (int64_t r = 0; r < pairs; r++)
            for (int i = 0; i < FEW_VECTORS && j + i * VW < end; i++)
                v_store(scores + (j + i * VW) / PANEL * PANEL * pairs_max + r * PANEL + col[i],
                        sum[r][i]);
    }
}

// P V over rows [begin, end) to o[D / 32][pairs_max][32]; rows as in few_values.
static void few_values_run(enum dtype dtype, const char *rows, size_t next, const float *scales,
                           int64_t begin, int64_t end, int64_t D, const float *p, int64_t pairs,
                           float *o, int64_t pairs_max) {
    few_fn *const run = few_of(dtype);
    for (int64_t d = 0; d < D; d += FEW_VECTORS * VW) {
        vf sum[FEW_PAIRS][FEW_VECTORS];
        run(&(struct few){.rows = rows, .next = next, .c = d, .begin = begin, .end = end,
                          .scales = scales, .scales_next = D / QK, .p = p}, pairs, sum);
        for (int64_t r = 0; r < pairs; r++)
            for (int i = 0; i < FEW_VECTORS; i++) {
                const int64_t c = d + i * VW;
                v_store(o + c / PANEL * PANEL * pairs_max + r * PANEL + c % PANEL, sum[r][i]);
            }
    }
}
