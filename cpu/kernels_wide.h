// kernels_wide.h: x in sixteen bits, for products with block formats in whole numbers. Part of kernels_whole.h, which
// says what they are, and of amx_whole.c.
//
// 32 terms at a time are whole multiples of step = max |x| / 32512. A number is 256 high + low, both signed bytes. Rows
// are taken in passes of R = 1 to 8; a row that does not exist is zero. A pass lies in one of three forms:
//     quads    [K / 4][R] pairs of words, as v_quad_dot wants them
//     pairs    [K / 4][R] pairs of words, as v_pair_dot or v_square_dot wants them; R = 8
//     planes   [K / 32][2][R][8] words of four bytes: the eight quads of a row, high bytes, then low; for matrix units
// with, behind it,
//     steps    [K / 32][R] floats
//     sums     [K / group][R] floats, step * (sum of x): formats with mins; others words, -zero * sum

enum wide_form { WIDE_QUADS, WIDE_PAIRS, WIDE_PLANES };
enum { PASS = 8, SIXTEEN_BITS = 32512 }; // 127 * 256, so that the high byte of any number is one byte

struct wide {
    const int32_t *quads, *starts; // quads: or pairs, or planes
    const float *steps, *sums;
};
INLINE size_t wide_bytes(int64_t terms) { // of one row
    return (size_t)(terms * 2 + terms / 32 * 4 + terms / 16 * 4);
}
// Of all passes when there are so many rows, unless they lie as pairs.
INLINE int tile_rows(int64_t rows) { return rows > PASS ? PASS : (int)rows; }
INLINE struct wide wide_at(const unsigned char *pass, int64_t terms, int64_t R) {
    const unsigned char *steps = pass + terms * 2 * R, *sums = steps + terms / 32 * 4 * R;
    return (struct wide){(const int32_t *)(const void *)pass, (const int32_t *)(const void *)sums,
                         (const float *)(const void *)steps, (const float *)(const void *)sums};
}

// 32 terms: q[i] = x[i] / step rounded. Infinity and NaN make the step NaN. Below 1e-30 is zero.
static float sixteen_bits(const float *x, int32_t q[32]) {
    vi m = v_zero_words();
    for (int i = 0; i < 32; i += VW)
        m = v_max_words(m, v_and(v_load_words(x + i), 0x7fffffff)); // the order of floats
    const int32_t most = v_most_word(m);
    float largest;
    memcpy(&largest, &most, sizeof largest);
    const bool finite = isfinite(largest), some = finite && largest >= 1e-30f;
    const vf inverse = v_set1(some ? SIXTEEN_BITS / largest : 0);
    for (int i = 0; i < 32; i += VW)
        v_store_words(q + i, some ? v_whole(v_mul(v_load(x + i), inverse)) : v_zero_words());
    return !finite ? NAN : some ? largest / SIXTEEN_BITS : 0;
}

struct widening {
    const struct tensor *x;
    unsigned char *to;
    int group, zero; // of the weights; group 0: K / 32
    bool mins;
    enum wide_form form;
};

// Terms [from, to) of a row.
static void widen_row(const struct widening *w, const float *x, unsigned char *pass, int R, int r, int64_t from, int64_t to) {
    const int64_t K = w->x->cols;
    int32_t q[32], pairs[16];
    int32_t *quads = (int32_t *)(void *)pass;
    float *steps = (float *)(void *)(pass + K * 2 * R), *sums = steps + K / 32 * R;
    for (int64_t k = from; k < to; k += 32) {
        const float step = x ? sixteen_bits(x + k, q) : 0;
        if (!x) memset(q, 0, sizeof q);
        for (int i = 0; i < 32; i += QUADS_TERMS)
            if (w->form == WIDE_PAIRS)
                v_pairs_store(pairs + i / 2, q + i);
            else
                v_quads_store(pairs + i / 2, q + i);
        int32_t *high = quads + (k / 32 * 2 * R + r) * 8, *low = high + R * 8;
        for (int i = 0; i < 8; i++)
            if (w->form == WIDE_PLANES)
                high[i] = pairs[2 * i], low[i] = pairs[2 * i + 1];
            else
                memcpy(quads + ((k / 4 + i) * R + r) * 2, pairs + 2 * i, 8);
        steps[k / 32 * R + r] = step;
        for (int g = 0; g < 32; g += w->group) {
            vi all = v_load_words(q + g);
            for (int i = g + VW; i < g + w->group; i += VW) all = v_add_words(all, v_load_words(q + i));
            const int32_t sum = v_sum_words(all);
            const int32_t start = -w->zero * sum;
            const float offset = step * (float)sum;
            memcpy(sums + (k + g) / w->group * R + r, w->mins ? (const void *)&offset : &start, 4);
        }
    }
}

// A piece is so many terms of a pass: eight rows of an inner dimension are long enough to be shared.
enum { WIDE_TERMS = 256 };
static void widen_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct widening *w = arg;
    const int64_t K = w->x->cols, blocks = ceil_div(K, WIDE_TERMS);
    const int R = w->form == WIDE_PAIRS ? PASS : tile_rows(w->x->rows);
    (void)thread;
    for (int64_t piece = lo; piece < hi; piece++) {
        const int64_t row = piece / blocks * PASS, k = piece % blocks * WIDE_TERMS;
        unsigned char *pass = w->to + (size_t)row * wide_bytes(K);
        for (int r = 0; r < R; r++)
            widen_row(w, row + r < w->x->rows ? row_f32(w->x, row + r) : NULL, pass, R, r, k, min_i64(k + WIDE_TERMS, K));
    }
}
static void widen(struct widening *w) {
    const int64_t each = WIDE_TERMS * min_i64(max_i64(1, w->x->rows), PASS); // 2048 take a microsecond
    pool_for(ceil_div(w->x->rows, PASS) * ceil_div(w->x->cols, WIDE_TERMS), max_i64(1, 2048 / each), widen_piece, w);
}
