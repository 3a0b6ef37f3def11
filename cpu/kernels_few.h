// kernels_few.h: both products of attention for few queries, from the cache as it lies. Part of kernels.h.
//
// What is read next is asked for on the way, as much as is read: the values of a chunk while its keys pass, the keys of
// the next while its values do. Heads lie 32 KiB apart and a panel is 4 KiB, so hardware runs ahead of neither, and without it the
// reads wait: 7 GB/s, of 16 that one thread can read (30 caches of 2048 x 192 of F16, 9 heads, one thread of a busy
// two-core Xeon, November 2026).
//
// Up to FEW_PAIRS queries read codes and halves in registers; for more a panel is converted once and the tile kernel
// runs over it. Both make the same chains of the same numbers.

enum {
    FEW_PAIRS = 4,
    FEW_VECTORS = VW == 16 ? 4 : 2, // side by side
};
static_assert((int)KEYS <= (int)BLOCK, "a chunk of values is one chain");

// What to ask for: at every step of a kernel `step` bytes on, what n numbers take.
struct ask {
    const char *at;
    size_t step;
};
INLINE struct ask ask_for(const char *at, enum dtype dtype, int64_t n) {
    return (struct ask){at, numbers_bytes(dtype, QK) * (size_t)n / QK};
}
INLINE void ask_ahead(struct ask *next) {
    for (size_t b = 0; b < next->step; b += 64) __builtin_prefetch(next->at + b, 0, 2); // into L2
    next->at += next->step;
}

// sum[r][i] = chain over d < D of q[r stride + d] * key, for FEW_VECTORS vectors of keys; vector i
// is columns col[i].. of panel[i].
INLINE void few_scores(const enum dtype dtype, const char *const *panel, const int *col, int64_t D,
                       const float *q, int64_t stride, struct ask next, const int R,
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
            ask_ahead(&next);
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
// from c on. Rows of values are `apart` bytes apart.
INLINE void few_values(const enum dtype dtype, const char *rows, size_t apart, struct ask next, int64_t c,
                       int64_t begin, int64_t end, const float *scales, int64_t scales_next,
                       const float *p, const int R, const int N, vf sum[FEW_PAIRS][FEW_VECTORS]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int i = 0; i < N; i++) sum[r][i] = v_zero();
    const int64_t in = FEW_VECTORS * VW % QK ? c % QK : 0; // where c stands in its block
    const char *row = rows + (size_t)begin * apart + codes_bytes(dtype, c - in);
    for (int64_t j = begin; j < end; j++, row += apart) {
        ask_ahead(&next);
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
    size_t apart;
    struct ask next;
    int64_t c, begin, end, scales_next;
    const float *scales, *p;
};
#define FEW_CASE(dtype, R)                                                                         \
    case R:                                                                                        \
        if (f->panel) few_scores(dtype, f->panel, f->col, f->D, f->q, f->stride, f->next, R, sum); \
        else                                                                                       \
            few_values(dtype, f->rows, f->apart, f->next, f->c, f->begin, f->end, f->scales,       \
                       f->scales_next, f->p, R, FEW_VECTORS, sum);                                 \
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

// Scores of keys [begin, end) of a chunk, whole panels, to scores[KEYS / 32][pairs_max][32];
// the values of the chunk come next.
static void few_scores_run(const struct tensor *t, const char *head, int64_t begin, int64_t end,
                           int64_t D, const float *q, int64_t pairs, const char *values,
                           enum dtype values_dtype, float *scores, int64_t pairs_max) {
    few_fn *const run = few_of(t->dtype);
    struct ask next = ask_for(values, values_dtype, FEW_VECTORS * VW * 8);
    for (int64_t j = begin; j < end; j += FEW_VECTORS * VW) {
        const char *panel[FEW_VECTORS];
        int col[FEW_VECTORS];
        vf sum[FEW_PAIRS][FEW_VECTORS];
        for (int i = 0; i < FEW_VECTORS; i++) { // a vector past the end repeats the first
            const int64_t at = j + i * VW < end ? j + i * VW : j;
            panel[i] = head + (size_t)(at / PANEL * PANEL) * numbers_bytes(t->dtype, D);
            col[i] = (int)(at % PANEL);
        }
        run(&(struct few){.panel = panel, .col = col, .D = D, .q = q, .stride = round_up(D, PANEL), .next = next},
            pairs, sum);
        next.at += next.step * (size_t)(D / 8);
        for (int64_t r = 0; r < pairs; r++)
            for (int i = 0; i < FEW_VECTORS && j + i * VW < end; i++)
                v_store(scores + (j + i * VW) / PANEL * PANEL * pairs_max + r * PANEL + col[i],
                        sum[r][i]);
    }
}

// P V over rows [begin, end) to o[D / 32][pairs_max][32]; rows as in few_values. `keys` come next.
static void few_values_run(enum dtype dtype, const char *rows, size_t apart, const float *scales,
                           int64_t begin, int64_t end, int64_t D, const float *p, int64_t pairs,
                           const char *keys, enum dtype keys_dtype, float *o, int64_t pairs_max) {
    few_fn *const run = few_of(dtype);
    struct ask next = ask_for(keys, keys_dtype, FEW_VECTORS * VW);
    for (int64_t d = 0; d < D; d += FEW_VECTORS * VW) {
        vf sum[FEW_PAIRS][FEW_VECTORS];
        run(&(struct few){.rows = rows, .apart = apart, .next = next, .c = d, .begin = begin, .end = end,
                          .scales = scales, .scales_next = D / QK, .p = p}, pairs, sum);
        next.at += next.step * (size_t)(end - begin);
        for (int64_t r = 0; r < pairs; r++)
            for (int i = 0; i < FEW_VECTORS; i++) {
                const int64_t c = d + i * VW;
                v_store(o + c / PANEL * PANEL * pairs_max + r * PANEL + c % PANEL, sum[r][i]);
            }
    }
}
