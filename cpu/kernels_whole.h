// kernels_whole.h: products with block formats, in whole numbers. Part of kernels.h.
//
// x is rounded, 32 terms at a time, to whole multiples of step = max |x| / 32512, sixteen
// bits. The dot of a group, sum of code * x, is then exact in 32 bits in any order and by any
// instruction, so that one row, eight rows, AVX2 and AVX-512 give equal bits; groups are added in
// order: sum = fma(d * scale, step * dot, sum), and fma(-dmin * min, step * (sum of x), sum). The
// rounding costs at most 2^-16 of the largest |x| of the block: a hundredth of what eight bits, usual
// elsewhere, would cost. What it buys: a code is never made a float, and vectors hold twice or four
// times as many products. Here are up to FEW_ROWS rows; kernels_pairs.h does more.
#include "cpu/kernels_wide.h"

// ---------------------------------------------------------------------------------------------------------------
// Products. total[r] += terms [k, k + 32) of VW weight rows with R rows of x.

// From column `col` on, C vectors of them at once, which share what they load of x.
INLINE void coded_dot(const enum dtype t, const int R, const int C, const unsigned char *block,
                      const unsigned char *chunk, int col, const struct wide *x, int64_t k,
                      float *total) {
#pragma GCC unroll 2
    for (int g = 0; g < 32; g += coded_group(t)) {
        vi first[2][PASS], second[2][PASS];
        const int64_t group = (k + g) / coded_group(t);
#pragma GCC unroll 2
        for (int c = 0; c < C; c++)
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                first[c][r] = v_zero_words();
                second[c][r] = coded_mins(t) ? v_zero_words() : v_set1_words(x->starts[group * R + r]);
            }
#pragma GCC unroll 8
        for (int quad = g / 4; quad < (g + coded_group(t)) / 4; quad++) {
            vi codes[2];
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) codes[c] = coded_operand(t, chunk, col + c * VW, quad);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const int32_t *from = x->quads + ((k / 4 + quad) * R + r) * 2;
#pragma GCC unroll 2
                for (int c = 0; c < C; c++) v_quad_dot(&first[c][r], &second[c][r], codes[c], from);
            }
        }
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) {
            vf dl, ml;
            coded_factors(t, block, chunk, col + c * VW, g, &dl, &ml);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vf dot = v_float(v_quad_sum(first[c][r], second[c][r]));
                vf sum = v_load(total + (c * R + r) * VW);
                sum = v_fma(dl, v_mul(v_set1(x->steps[k / 32 * R + r]), dot), sum);
                if (coded_mins(t)) sum = v_fma(ml, v_set1(x->sums[group * R + r]), sum);
                v_store(total + (c * R + r) * VW, sum);
            }
        }
    }
}

// A walk: W panels at once, because one stream does not fill the memory pipe. total: [W][PANEL / VW][R][VW].
INLINE void coded_walk(const enum dtype t, const int R, int W, const unsigned char *const *panel,
                       const struct wide *x, int64_t K, float *total) {
    memset(total, 0, sizeof(float) * (size_t)(W * PANEL * R));
    for (int64_t k = 0; k < K; k += 32)
        for (int s = 0; s < W; s++) {
            const unsigned char *block = panel[s] + k / coded_terms(t) * coded_block_bytes(t);
            const unsigned char *chunk =
                block + coded_head(t) + k % coded_terms(t) / 32 * coded_chunk_bytes(t);
            for (int line = 0; line < coded_chunk_bytes(t); line += 64)
                __builtin_prefetch(chunk + 2048 + line);
            const int C = VW == 16 && R > 1 ? 2 : 1; // as many sums as there are registers for
#pragma GCC unroll 4
            for (int col = 0; col < PANEL; col += C * VW)
                coded_dot(t, R, C, block, chunk, col, x, k, total + (s * PANEL + col) * R);
        }
}

// Rows in one pass: as many as there are registers for. (With AVX-512 seven and eight would take 37 and 42
// microseconds where kernels_pairs.h takes 52, and 27 seconds instead of 19 to compile; 576 x 1536 of Q4_1, two threads.)
enum { WALK = 4, FEW_ROWS = VW == 16 ? 6 : 4 };
typedef void coded_walk_fn(int W, const unsigned char *const *panel, const struct wide *x,
                           int64_t K, float *total);
#define CODED_WALK_OF(upper, lower, R)                                                             \
    static void coded_walk_##lower##_##R(int W, const unsigned char *const *panel,                 \
                                         const struct wide *x, int64_t K, float *total) {          \
        coded_walk(DTYPE_##upper, R, W, panel, x, K, total);                                       \
    }
#define CODED_WALKS(upper, lower)                                                                  \
    CODED_WALK_OF(upper, lower, 1)                                                                 \
    CODED_WALK_OF(upper, lower, 2)                                                                 \
    CODED_WALK_OF(upper, lower, 3)                                                                 \
    CODED_WALK_OF(upper, lower, 4)                                                                 \
    CODED_WALKS_MORE(upper, lower)
#if VW == 16
#define CODED_WALKS_MORE(upper, lower)                                                             \
    CODED_WALK_OF(upper, lower, 5)                                                                 \
    CODED_WALK_OF(upper, lower, 6)
#define CODED_WALK_MORE(lower)                                                                     \
    , coded_walk_##lower##_5, coded_walk_##lower##_6
#else
#define CODED_WALKS_MORE(upper, lower)
#define CODED_WALK_MORE(lower)
#endif
CODED_DTYPES(CODED_WALKS)
#define CODED_WALK_ROW(upper, lower)                                                               \
    [DTYPE_##upper] = {coded_walk_##lower##_1, coded_walk_##lower##_2, coded_walk_##lower##_3,     \
                       coded_walk_##lower##_4 CODED_WALK_MORE(lower)},
static coded_walk_fn *const coded_walks[DTYPE_COUNT][FEW_ROWS] = {CODED_DTYPES(CODED_WALK_ROW)};

struct coded_product {
    const struct matmul_args *a;
    unsigned char *wide;
    int64_t pieces;                // of few rows: even shares of the panels, a walk or less
    int64_t row_blocks, rows_each; // of kernels_pairs.h
};

static void coded_write(const struct matmul_args *a, const float *total, int64_t panel, int64_t row,
                        int R) {
    const float scale = one_if_zero(a->scale);
    for (int64_t r = 0; r < R && row + r < a->x.rows; r++)
        for (int64_t col = 0; col < PANEL; col += VW) {
            const int64_t at = panel * PANEL + col, n = a->out.cols - at;
            if (n > 0)
                sums_write(total + (col * R + r * VW), 1, min_i64(n, VW),
                           row_f32(&a->out, row + r) + at, 0, scale, a->accumulate);
        }
}

// The `count` panels of a walk that begins at panel `first`: packed ones, or made here.
static void walk_panels(const struct coded_product *p, int64_t first, int64_t count, int thread,
                        const unsigned char *panel[WALK]) {
    const struct tensor *w = &p->a->w;
    const size_t each = coded_panel_bytes(w->dtype, w->cols);
    for (int64_t s = 0; s < count; s++) {
        panel[s] = (const unsigned char *)w->data + (size_t)(first + s) * each;
        if (w->layout == LAYOUT_DEVICE) continue;
        unsigned char *made = (unsigned char *)cpu_scratch(thread, SLOT_A, WALK * each) + (size_t)s * each;
        panel_make(w, first + s, made);
        panel[s] = made;
    }
}

// A piece is a walk, all rows: one pass.
static void coded_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct coded_product *p = arg;
    const struct matmul_args *a = p->a;
    const int64_t K = a->x.cols, panels = ceil_div(a->out.cols, PANEL);
    const int R = tile_rows(a->x.rows);
    const struct wide x = wide_at(p->wide, K, R);
    float total[WALK * PANEL * FEW_ROWS];
    for (int64_t piece = lo; piece < hi; piece++) {
        const int64_t first = panels * piece / p->pieces, count = panels * (piece + 1) / p->pieces - first;
        const unsigned char *panel[WALK];
        walk_panels(p, first, count, thread, panel);
        coded_walks[a->w.dtype][R - 1]((int)count, panel, &x, K, total);
        for (int64_t s = 0; s < count; s++) coded_write(a, total + s * PANEL * R, first + s, 0, R);
    }
}

#include "cpu/kernels_pairs.h"

// x in sixteen bits at p->wide; nothing to do where the product before had the same.
static void coded_widen(struct coded_product *p, bool few, const struct coded_product *before) {
    const enum dtype t = p->a->w.dtype, u = before ? before->a->w.dtype : t;
    if (before && coded_group(t) == coded_group(u) && coded_dot_zero(t) == coded_dot_zero(u) && coded_mins(t) == coded_mins(u)) {
        p->wide = before->wide;
        return;
    }
    struct widening w = {&p->a->x, p->wide, coded_group(t), coded_dot_zero(t), coded_mins(t), few ? WIDE_QUADS : WIDE_PAIRS};
    widen(&w);
}

// Of one x.
static void coded_products(const struct matmul_args *list, int count) {
    const int64_t K = list->x.cols, rows = list->x.rows, passes = ceil_div(rows, PASS);
    const size_t wide = (size_t)(passes * PASS) * wide_bytes(K);
    const bool few = rows <= FEW_ROWS;
    struct coded_product p[PROJECT_MOST];
    struct jobs jobs = {0};
    unsigned char *room = cpu_scratch(0, SLOT_SHARED, (size_t)count * wide);
    for (int j = 0; j < count; j++) {
        const struct matmul_args *a = &list[j];
        const bool packed = a->w.layout == LAYOUT_DEVICE;
        const int64_t panels = ceil_div(a->out.cols, PANEL), each = packed ? PASSES * PASS : max_i64(1, rows);
        p[j] = (struct coded_product){.a = a, .wide = room + (size_t)j * wide, .pieces = even_pieces(panels, WALK),
                                      .row_blocks = ceil_div(rows, each), .rows_each = each};
        coded_widen(&p[j], few, j ? &p[j - 1] : NULL);
        if (!packed) cpu_scratch_reserve(SLOT_A, WALK * coded_panel_bytes(a->w.dtype, K));
        if (few) jobs_add(&jobs, coded_piece, &p[j], p[j].pieces);
        else jobs_add(&jobs, pairs_piece, &p[j], ceil_div(panels, WALK) * p[j].row_blocks);
    }
    if (!few) cpu_scratch_reserve(SLOT_B, sizeof(struct pairs_room));
    jobs_run(&jobs, WALK * PANEL * K * max_i64(1, min_i64(rows, p[0].rows_each)));
}
