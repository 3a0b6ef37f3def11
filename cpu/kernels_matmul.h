// kernels_matmul.h: products with weights. Part of kernels.h.
//
// One inner kernel serves all large products: a tile of 12 x 32 outputs (AVX2: 6 x 16) in
// registers, fed by one value of A per row and one line of B. B is always a panel [k][32 columns];
// who makes the panel differs:
//
//   matmul     A = x, sum over K      B = weights [k][32 rows]: packed so at load, or turned here
//   matmul_dx  A = dout, sum over M   B = [m][32 columns of w]: rows of w as they are
//   matmul_dw  A = dout^T, sum over the rows of a segment   B = [row][32 columns of x]
//
// A piece of work is some rows of A times one panel; it makes its panel block by block of 256 terms
// (32 KiB, so that it stays in L1 or L2) and runs the tiles over it. Block sums are added in order,
// which is the rule of backend.h. An inner kernel for matrix units (bf16 tiles) would take the
// place of tile_run and panel_block, and nothing else.
//
// Up to DECODE_ROWS rows of packed weights take another way (decode_*), bound by memory: weights
// are converted in registers while several panels are walked at once, because one stream does not
// fill the memory pipe. Weights of block formats are multiplied in whole numbers, however many rows
// there are: kernels_whole.h.
//
// Packed weights (LAYOUT_DEVICE): panels of 32 weight rows, missing rows zero, one after the other.
// A panel of F32, F16 and BF16 is [k][32]; the block formats: kernels_codes.h.

#include "cpu/kernels_codes.h"

enum {
    BLOCK = 256, // terms of one chain
    TILE_ROWS = 3 * TILE_GROUPS,
    TILE_COLS = 2 * VW,
    DECODE_ROWS = 8,
};
static_assert(PANEL % TILE_COLS == 0, "a tile's columns divide a panel");

#include "cpu/kernels_coded.h"
#include "cpu/kernels_pack.h"

// ---------------------------------------------------------------------------------------------------------------
// The inner kernel: c[3 G rows][TILE_COLS] (rows PANEL apart) = or += chain over k of a[i rs + k
// cs] * b[k ldb + column]. Registers are named by macros because arrays of accumulators are spilled
// to memory by some compilers.

#define TILE_ZERO(g)                                                                               \
    vf c##g##0l = v_zero(), c##g##0h = v_zero(), c##g##1l = v_zero(), c##g##1h = v_zero(),         \
       c##g##2l = v_zero(), c##g##2h = v_zero();                                                   \
    const float *a##g = a + 3 * g * rs;
#define TILE_ROW(g, i)                                                                             \
    x = v_set1(a##g[i * rs]);                                                                      \
    c##g##i##l = v_fma(x, bl, c##g##i##l);                                                         \
    c##g##i##h = v_fma(x, bh, c##g##i##h);
#define TILE_STEP(g) TILE_ROW(g, 0) TILE_ROW(g, 1) TILE_ROW(g, 2) a##g += cs;
#define TILE_OUT(g, i)                                                                             \
    to = c + (3 * g + i) * PANEL;                                                                  \
    if (add)                                                                                       \
        c##g##i##l = v_add(v_load(to), c##g##i##l),                                                \
        c##g##i##h = v_add(v_load(to + VW), c##g##i##h);                                           \
    v_store(to, c##g##i##l);                                                                       \
    v_store(to + VW, c##g##i##h);
#define TILE_STORE(g) TILE_OUT(g, 0) TILE_OUT(g, 1) TILE_OUT(g, 2)
#define GROUPS_1(X) X(0)
#define GROUPS_2(X) X(0) X(1)
#define GROUPS_3(X) X(0) X(1) X(2)
#define GROUPS_4(X) X(0) X(1) X(2) X(3)
#define TILE_BODY(GROUPS)                                                                          \
    do {                                                                                           \
        GROUPS(TILE_ZERO)                                                                          \
        for (int64_t k = 0; k < terms; k++, b += ldb) {                                            \
            const vf bl = v_load(b), bh = v_load(b + VW);                                          \
            vf x;                                                                                  \
            GROUPS(TILE_STEP)                                                                      \
        }                                                                                          \
        float *to;                                                                                 \
        GROUPS(TILE_STORE)                                                                         \
    } while (0)

INLINE void tile_any(int groups, const float *a, ptrdiff_t rs, ptrdiff_t cs, const float *b,
                     ptrdiff_t ldb, int64_t terms, float *c, bool add) {
    assert(groups >= 1 && groups <= TILE_GROUPS);
    switch (groups) {
    case 1:
        TILE_BODY(GROUPS_1);
        break;
    case 2:
        TILE_BODY(GROUPS_2);
        break;
#if TILE_GROUPS > 2
    case 3:
        TILE_BODY(GROUPS_3);
        break;
    case 4:
        TILE_BODY(GROUPS_4);
        break;
#endif
    }
}
// A by rows: a[i][k], rows rs apart.
static void tile_by_rows(int groups, const float *a, ptrdiff_t rs, const float *b, ptrdiff_t ldb,
                         int64_t terms, float *c, bool add) {
    tile_any(groups, a, rs, 1, b, ldb, terms, c, add);
}
// A by terms: a[k][i], terms cs apart.
static void tile_by_terms(int groups, const float *a, ptrdiff_t cs, const float *b, ptrdiff_t ldb,
                          int64_t terms, float *c, bool add) {
    tile_any(groups, a, 1, cs, b, ldb, terms, c, add);
}

// A's values of one product. by_terms: a[k * stride + i], else a[i * stride + k].
struct left {
    const float *at;
    ptrdiff_t stride;
    bool by_terms;
};

// sum[rows][PANEL] = or += left[i0.., k0..] times the panel b; columns in [0, cols) matter. The
// last rows, when they do not fill a group of three, are copied so that nothing outside A is read;
// sum has room for whole tiles.
static void tile_run(const struct left *left, int64_t i0, int64_t rows, int64_t k0, int64_t terms,
                     const float *b, ptrdiff_t ldb, int64_t cols, float *sum, bool add) {
    float copy[TILE_ROWS * BLOCK];
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        const int64_t count = min_i64(TILE_ROWS, rows - i);
        const int groups = (int)ceil_div(count, 3);
        const float *a =
            left->at + (left->by_terms ? k0 * left->stride + i0 + i : (i0 + i) * left->stride + k0);
        ptrdiff_t stride = left->stride;
        if (count % 3) {
            for (int64_t r = 0; r < 3 * groups; r++)
                for (int64_t k = 0; k < terms; k++) {
                    const float x = r >= count       ? 0
                                    : left->by_terms ? a[k * stride + r]
                                                     : a[r * stride + k];
                    if (left->by_terms)
                        copy[k * TILE_ROWS + r] = x;
                    else
                        copy[r * BLOCK + k] = x;
                }
            a = copy;
            stride = left->by_terms ? TILE_ROWS : BLOCK;
        }
        for (int64_t j = 0; j < cols; j += TILE_COLS) {
            float *c = sum + i * PANEL + j;
            if (left->by_terms)
                tile_by_terms(groups, a, stride, b + j, ldb, terms, c, add);
            else
                tile_by_rows(groups, a, stride, b + j, ldb, terms, c, add);
        }
    }
}

// out[rows][cols] = scale * sum (+ out), rows of out ldo apart.
static void sums_write(const float *sum, int64_t rows, int64_t cols, float *out, int64_t ldo,
                       float scale, bool accumulate) {
    const vf s = v_set1(scale);
    for (int64_t i = 0; i < rows; i++, sum += PANEL, out += ldo) {
        for (int64_t j = 0; j < cols; j += VW) {
            const int64_t n = cols - j;
            vf x = v_mul(s, v_load(sum + j));
            if (n >= VW) {
                if (accumulate) x = v_add(v_load(out + j), x);
                v_store(out + j, x);
            } else {
                if (accumulate) x = v_add(v_load_n(out + j, n), x);
                v_store_n(out + j, x, n);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Making panels.

// n numbers of a plain dtype as floats.
static void to_floats(enum dtype dtype, const void *src, float *dst, int64_t n) {
    int64_t i = 0;
    const char *from = src;
    if (dtype == DTYPE_F32) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
    } else if (dtype == DTYPE_BF16 || dtype == DTYPE_F16) {
        for (; i + VW <= n; i += VW)
            v_store(dst + i,
                    dtype == DTYPE_BF16 ? v_load_bf16(from + 2 * i) : v_load_f16(from + 2 * i));
        if (i < n) dtype_row(dtype)->to_f32(from + 2 * i, dst + i, n - i);
    } else {
        dtype_row(dtype)->to_f32(src, dst, n);
    }
}

// to[k][PANEL] = rows of floats, `count` of them, `stride` apart, terms [0, terms); missing rows
// are zeros.
static void panel_transpose(const float *rows, ptrdiff_t stride, int64_t count, int64_t terms,
                            float *to) {
    const int64_t whole = terms / VW * VW;
    for (int64_t j = 0; j < PANEL; j += VW) {
        const int64_t full = count - j >= VW ? whole : 0;
        for (int64_t k = 0; k < full; k += VW)
            v_transpose(rows + j * stride + k, stride, to + k * PANEL + j, PANEL);
        for (int64_t l = j; l < j + VW; l++)
            for (int64_t k = full; k < terms; k++)
                to[k * PANEL + l] = l < count ? rows[l * stride + k] : 0;
    }
}

// to[k][PANEL] from packed weights of any dtype but F32; terms [k0, k0 + terms), k0 a multiple
// of 32.
static void panel_unpack(enum dtype dtype, const unsigned char *panel, int64_t k0, int64_t terms,
                         float *to) {
    if (dtype == DTYPE_BF16 || dtype == DTYPE_F16) {
        const unsigned char *from = panel + k0 * PANEL * 2;
        for (int64_t i = 0; i < terms * PANEL; i += VW)
            v_store(to + i,
                    dtype == DTYPE_BF16 ? v_load_bf16(from + 2 * i) : v_load_f16(from + 2 * i));
        return;
    }
    coded_unpacks[dtype](panel, k0, terms, 0, PANEL, to);
}

// The panel of columns [32 p, 32 p + 32) of the right factor, terms [k0, k0 + terms), with rows
// *ldb apart: in place where it lies so already, else made in buf ([BLOCK][PANEL], then room for
// [PANEL][BLOCK]).
enum right_kind { RIGHT_WEIGHT, RIGHT_WEIGHT_TRANSPOSED };
static const float *panel_block(enum right_kind kind, const struct tensor *w, int64_t p, int64_t k0,
                                int64_t terms, float *buf) {
    if (kind == RIGHT_WEIGHT && w->layout == LAYOUT_DEVICE) {
        const unsigned char *panel = (const unsigned char *)w->data + (size_t)p * panel_bytes(w);
        if (w->dtype == DTYPE_F32) return (const float *)(const void *)panel + k0 * PANEL;
        panel_unpack(w->dtype, panel, k0, terms, buf);
        return buf;
    }
    const struct dtype_row *d = dtype_row(w->dtype);
    if (kind == RIGHT_WEIGHT) {
        const int64_t count = min_i64(PANEL, w->rows - p * PANEL);
        const char *from = (const char *)w->data + (size_t)(p * PANEL) * w->row_bytes +
                           k0 / d->block_weights * d->block_bytes;
        if (w->dtype == DTYPE_F32 && w->row_bytes % sizeof(float) == 0) {
            panel_transpose((const float *)(const void *)from, row_stride(w), count, terms, buf);
        } else {
            float *rows = buf + BLOCK * PANEL;
            for (int64_t l = 0; l < count; l++)
                to_floats(w->dtype, from + (size_t)l * w->row_bytes, rows + l * BLOCK, terms);
            panel_transpose(rows, BLOCK, count, terms, buf);
        }
        return buf;
    }
    const int64_t count = min_i64(PANEL, w->cols - p * PANEL);
    const char *from =
        (const char *)w->data + (size_t)k0 * w->row_bytes + (size_t)(p * PANEL * d->block_bytes);
    for (int64_t k = 0; k < terms; k++, from += w->row_bytes) {
        to_floats(w->dtype, from, buf + k * PANEL, count);
        for (int64_t l = count; l < PANEL; l++) buf[k * PANEL + l] = 0;
    }
    return buf;
}

// ---------------------------------------------------------------------------------------------------------------
// out[n, cols] = scale * A[n, terms] B[terms, cols] (+ out), for matmul and matmul_dx.

struct product {
    struct left left;
    enum right_kind kind;
    const struct tensor *w;
    const struct tensor *out;
    int64_t terms;
    int64_t rows_each, row_blocks, panels_each; // a piece is rows_each rows of A and some panels
    float scale;
    bool accumulate;
};

// Rows of a piece: enough that making the panel is cheap beside using it, few enough that there are
// pieces for many threads. Few terms: one panel, and the rows stay in L2 (1 MiB) while pieces pass.
// Many terms: a block of the rows stays there while several panels pass.
enum { FEW_TERMS = 1024, PRODUCT_PANELS = 8, DEEP_ROWS = 192, FLAT_ROWS = 576 };
static void product_cut(struct product *p) {
    const int64_t n = p->out->rows, panels = ceil_div(p->out->cols, PANEL);
    const bool deep = p->terms > FEW_TERMS;
    p->panels_each = 1;
    if (deep) p->panels_each = max_i64(1, min_i64(panels * ceil_div(n, 96) / 16, PRODUCT_PANELS));
    const int64_t groups = ceil_div(panels, p->panels_each);
    int64_t rows = deep ? n * groups / 16 : n * panels / 48;
    if (!deep) rows = min_i64(rows, (1 << 18) / max_i64(1, p->terms));
    p->rows_each = ceil_div(min_i64(max_i64(rows, 96), deep ? DEEP_ROWS : FLAT_ROWS), 12) * 12;
    p->row_blocks = ceil_div(n, p->rows_each);
}

// One panel's share of block k of a piece: rows from `first`, sums at sum.
static void product_panel(const struct product *p, int64_t panel, int64_t first, int64_t k,
                          float *buf, float *sum) {
    const int64_t rows = min_i64(p->rows_each, p->out->rows - first);
    const int64_t cols = min_i64(PANEL, p->out->cols - panel * PANEL);
    const int64_t terms = min_i64(BLOCK, p->terms - k);
    const float *b = panel_block(p->kind, p->w, panel, k, terms, buf);
    const bool last = k + terms == p->terms;
    // The last block is written out tile by tile, while the sums are in L1.
    const int64_t step = last ? TILE_ROWS : rows;
    for (int64_t i = 0; i < rows; i += step) {
        const int64_t count = min_i64(step, rows - i);
        float *to = sum + i * PANEL;
        tile_run(&p->left, first + i, count, k, terms, b, PANEL, cols, to, k > 0);
        if (last)
            sums_write(to, count, cols, row_f32(p->out, first + i) + panel * PANEL,
                       row_stride(p->out), p->scale, p->accumulate);
    }
}

// Of any product: how many rows an expert has shall not show in memory.
enum { PRODUCT_SUMS_BYTES = DEEP_ROWS * PRODUCT_PANELS * PANEL * sizeof(float) };
static_assert(DEEP_ROWS * PRODUCT_PANELS >= FLAT_ROWS, "sums of one panel of many rows fit too");

static void product_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct product *p = arg;
    const int64_t panels = ceil_div(p->out->cols, PANEL);
    float *buf = cpu_scratch(thread, SLOT_A, 2 * BLOCK * PANEL * sizeof(float));
    float *sums = cpu_scratch(thread, SLOT_B, PRODUCT_SUMS_BYTES);
    for (int64_t t = lo; t < hi; t++) {
        const int64_t from = t / p->row_blocks * p->panels_each;
        const int64_t to = min_i64(from + p->panels_each, panels);
        for (int64_t k = 0; k < p->terms; k += BLOCK)
            for (int64_t i = from; i < to; i++)
                product_panel(p, i, t % p->row_blocks * p->rows_each, k, buf,
                              sums + (i - from) * p->rows_each * PANEL);
    }
}

static void product_run(struct product *p) {
    product_cut(p);
    cpu_scratch_reserve(SLOT_A, 2 * BLOCK * PANEL * sizeof(float));
    cpu_scratch_reserve(SLOT_B, PRODUCT_SUMS_BYTES);
    const int64_t pieces = ceil_div(ceil_div(p->out->cols, PANEL), p->panels_each) * p->row_blocks;
    const int64_t each = min_i64(p->out->rows, p->rows_each) * p->panels_each * PANEL * p->terms;
    pool_for(pieces, max_i64(1, (1 << 18) / max_i64(1, each)), product_piece, p);
}

static void matmul_dx(const struct matmul_dx_args *a) {
    assert(is_f32(&a->dx) && is_f32(&a->dout) && a->w.layout == LAYOUT_ROWS && a->w.mats == 1);
    assert(a->w.dtype == DTYPE_F32 || a->w.dtype == DTYPE_BF16);
    assert(a->dx.rows == a->dout.rows && a->dx.cols == a->w.cols && a->dout.cols == a->w.rows);
    struct product p = {.left = {a->dout.data, row_stride(&a->dout), false},
                        .kind = RIGHT_WEIGHT_TRANSPOSED,
                        .w = &a->w,
                        .out = &a->dx,
                        .terms = a->w.rows,
                        .scale = one_if_zero(a->scale),
                        .accumulate = a->accumulate};
    product_run(&p);
}

// ---------------------------------------------------------------------------------------------------------------
// dw[M,K] += scale * (sum of the segment's rows of dout^T x), segment after segment.

// A piece is some rows of dw times a few panels of x. Both factors lie in memory along the wrong
// side, so both are copied, a block of 256 terms at a time: the panels once per piece, a tile's
// columns of dout once per block and all panels.
enum { GRADIENT_PANELS = 4 };
struct weight_gradient {
    const struct matmul_dw_args *a;
    int64_t rows_each, row_blocks;
};

// to[k][PANEL] = cols numbers of rows k of x, the rest zeros.
static void panel_copy(const float *x, int64_t stride, int64_t terms, int64_t cols, float *to) {
    for (int64_t k = 0; k < terms; k++, x += stride, to += PANEL)
        for (int64_t j = 0; j < PANEL; j += VW)
            v_store(to + j, cols - j >= VW ? v_load(x + j) : v_load_n(x + j, max_i64(0, cols - j)));
}

static void matmul_dw_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct weight_gradient *g = arg;
    const struct matmul_dw_args *a = g->a;
    float *buf = cpu_scratch(thread, SLOT_A, GRADIENT_PANELS * BLOCK * PANEL * sizeof(float));
    float *sums =
        cpu_scratch(thread, SLOT_B, (size_t)g->rows_each * GRADIENT_PANELS * PANEL * sizeof(float));
    float copy[BLOCK * (TILE_ROWS + VW)];
    for (int64_t t = lo; t < hi; t++) {
        const int64_t first = t % g->row_blocks * g->rows_each,
                      rows = min_i64(g->rows_each, a->dw.rows - first);
        const int64_t col = t / g->row_blocks * GRADIENT_PANELS * PANEL;
        const int64_t cols = min_i64(GRADIENT_PANELS * PANEL, a->dw.cols - col);
        for (int64_t k = 0, terms; k < a->x.rows; k += terms) {
            const int64_t in = k % a->segment; // blocks begin anew with every segment
            terms = min_i64(BLOCK, a->segment - in);
            const bool last = in + terms == a->segment;
            for (int64_t p = 0; p * PANEL < cols; p++)
                panel_copy(row_f32(&a->x, k) + col + p * PANEL, row_stride(&a->x), terms,
                           cols - p * PANEL, buf + p * BLOCK * PANEL);
            for (int64_t i = 0; i < rows; i += TILE_ROWS) {
                const int64_t count = min_i64(TILE_ROWS, rows - i);
                const float *from = row_f32(&a->dout, k) + first + i;
                for (int64_t r = 0; r < terms; r++, from += row_stride(&a->dout))
                    for (int64_t l = 0; l < TILE_ROWS; l += VW)
                        v_store(copy + r * TILE_ROWS + l, v_load_n(from + l, count - l));
                for (int64_t p = 0; p * PANEL < cols; p++) {
                    const struct left left = {copy, TILE_ROWS, true};
                    float *sum = sums + p * g->rows_each * PANEL + i * PANEL;
                    const int64_t width = min_i64(PANEL, cols - p * PANEL);
                    tile_run(&left, 0, ceil_div(count, 3) * 3, 0, terms, buf + p * BLOCK * PANEL,
                             PANEL, width, sum, in > 0);
                    if (last)
                        sums_write(sum, count, width, row_f32(&a->dw, first + i) + col + p * PANEL,
                                   row_stride(&a->dw), one_if_zero(a->scale),
                                   k >= a->segment || !a->fresh);
                }
            }
        }
    }
}

static void matmul_dw(const struct matmul_dw_args *a) {
    assert(is_f32(&a->dw) && is_f32(&a->dout) && is_f32(&a->x));
    assert(a->dout.rows == a->x.rows && a->dw.rows == a->dout.cols && a->dw.cols == a->x.cols);
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    const int64_t panels = ceil_div(a->dw.cols, PANEL);
    const int64_t groups = ceil_div(panels, GRADIENT_PANELS);
    // Few rows make more pieces, many rows use the copied panels more often.
    const int64_t least = min_i64(48, max_i64(36, a->dw.rows / 4));
    const int64_t rows = min_i64(max_i64(a->dw.rows * groups / 16, least), 240);
    struct weight_gradient g = {.a = a, .rows_each = ceil_div(rows, 12) * 12};
    g.row_blocks = ceil_div(a->dw.rows, g.rows_each);
    cpu_scratch_reserve(SLOT_A, GRADIENT_PANELS * BLOCK * PANEL * sizeof(float));
    cpu_scratch_reserve(SLOT_B, (size_t)g.rows_each * GRADIENT_PANELS * PANEL * sizeof(float));
    pool_for(groups * g.row_blocks, 1, matmul_dw_piece, &g);
}

// ---------------------------------------------------------------------------------------------------------------
// Several products at once, as one round of the pool: fewer waits for whoever is last.

struct jobs {
    pool_fn *fn[PROJECT_MOST];
    void *arg[PROJECT_MOST];
    int64_t end[PROJECT_MOST]; // pieces up to and with each
    int count;
};
static void jobs_add(struct jobs *j, pool_fn *fn, void *arg, int64_t pieces) {
    j->fn[j->count] = fn, j->arg[j->count] = arg;
    j->end[j->count] = pieces + (j->count ? j->end[j->count - 1] : 0);
    j->count++;
}
static void jobs_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct jobs *jobs = arg;
    for (int64_t j = 0, begin = 0; j < jobs->count; begin = jobs->end[j++]) {
        const int64_t from = max_i64(lo, begin), to = min_i64(hi, jobs->end[j]);
        if (from < to) jobs->fn[j](jobs->arg[j], from - begin, to - begin, thread);
    }
}
// work: multiplications of a piece. A handful of microseconds is worth handing out.
static void jobs_run(struct jobs *j, int64_t work) {
    pool_for(j->end[j->count - 1], max_i64(1, (1 << 16) / max_i64(1, work)), jobs_piece, j);
}
// So many pieces of at most `most` of n things that all threads have the same number of pieces, equal within one thing.
static int64_t even_pieces(int64_t n, int64_t most) { return pool_threads() * ceil_div(n, most * pool_threads()); }

#include "cpu/kernels_whole.h"

// ---------------------------------------------------------------------------------------------------------------
// Few rows of packed weights. A strip is TILE_COLS outputs; a walk takes WALK strips at once for R
// rows, so that there are several streams from memory and enough independent chains. Rows and
// strips that do not exist repeat the last one.

struct decode {
    const struct matmul_args *a;
    int64_t rows, strips; // rows of x of this pass, strips of the weight
    int64_t row;          // first row of x
};

INLINE const unsigned char *strip_at(const struct tensor *w, int64_t strip, int *col) {
    *col = (int)(strip * TILE_COLS % PANEL);
    return (const unsigned char *)w->data + (size_t)(strip * TILE_COLS / PANEL) * panel_bytes(w);
}

// chain[s][r] += terms k of [k0, k0 + terms), in order; at[s] is the panel, col[s] the first column
// in it.
INLINE void decode_block(const enum dtype dtype, const int R, const int W,
                         const unsigned char *const *at, const int *col, const float *const *x,
                         int64_t k0, int64_t terms, vf chain[4][8][2]) {
    const int bytes = dtype == DTYPE_F32 ? 4 : 2;
    vf c[4][8][2];
#pragma GCC unroll 4
    for (int s = 0; s < W; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) c[s][r][0] = chain[s][r][0], c[s][r][1] = chain[s][r][1];
    for (int64_t k = k0; k < k0 + terms; k++) {
#pragma GCC unroll 4
        for (int s = 0; s < W; s++) {
            const unsigned char *p = at[s] + (k * PANEL + col[s]) * bytes;
            vf lo, hi;
            __builtin_prefetch(p + 1024);
            if (dtype == DTYPE_F32) {
                __builtin_prefetch(p + 1024 + 64);
                lo = v_load((const float *)(const void *)p),
                hi = v_load((const float *)(const void *)p + VW);
            } else if (dtype == DTYPE_BF16) {
                lo = v_load_bf16(p), hi = v_load_bf16(p + 2 * VW);
            } else {
                lo = v_load_f16(p), hi = v_load_f16(p + 2 * VW);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vf xk = v_set1(x[r][k]);
                c[s][r][0] = v_fma(xk, lo, c[s][r][0]);
                c[s][r][1] = v_fma(xk, hi, c[s][r][1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int s = 0; s < W; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) chain[s][r][0] = c[s][r][0], chain[s][r][1] = c[s][r][1];
}

// Strips [lo, hi) in walks of W, rows of x in one pass of R.
INLINE void decode_walks(const struct decode *d, const enum dtype dtype, const int R, const int W,
                         int64_t lo, int64_t hi) {
    const struct matmul_args *a = d->a;
    const int64_t K = a->x.cols;
    const float *x[8];
    for (int r = 0; r < R; r++) x[r] = row_f32(&a->x, d->row + min_i64(r, d->rows - 1));
    for (int64_t strip = lo; strip < hi; strip += W) {
        const unsigned char *at[4];
        int col[4];
        for (int s = 0; s < W; s++) at[s] = strip_at(&a->w, min_i64(strip + s, hi - 1), &col[s]);
        vf total[4][8][2], chain[4][8][2];
        for (int s = 0; s < W; s++)
            for (int r = 0; r < R; r++) total[s][r][0] = total[s][r][1] = v_zero();
        for (int64_t k = 0; k < K; k += BLOCK) {
            const int64_t end = min_i64(k + BLOCK, K);
            for (int s = 0; s < W; s++)
                for (int r = 0; r < R; r++) chain[s][r][0] = chain[s][r][1] = v_zero();
            decode_block(dtype, R, W, at, col, x, k, end - k, chain);
            for (int s = 0; s < W; s++)
                for (int r = 0; r < R; r++)
                    for (int h = 0; h < 2; h++)
                        total[s][r][h] = k ? v_add(total[s][r][h], chain[s][r][h]) : chain[s][r][h];
        }
        for (int s = 0; s < W && strip + s < hi; s++) {
            const int64_t c0 = (strip + s) * TILE_COLS, cols = min_i64(TILE_COLS, a->out.cols - c0);
            if (cols <= 0) continue; // a strip of padding
            for (int r = 0; r < R && r < d->rows; r++) {
                float sum[PANEL];
                v_store(sum, total[s][r][0]), v_store(sum + VW, total[s][r][1]);
                sums_write(sum, 1, cols, row_f32(&a->out, d->row + r) + c0, 0,
                           one_if_zero(a->scale), a->accumulate);
            }
        }
    }
}

// Registers allow 8 accumulating pairs with 16 registers, 16 with 32.
#if VW == 16
enum { PASS_ROWS = 8, WALK_1 = 4, WALK_2 = 4, WALK_4 = 2, WALK_8 = 1 };
#else
enum { PASS_ROWS = 4, WALK_1 = 4, WALK_2 = 2, WALK_4 = 1, WALK_8 = 1 };
#endif
#define DECODE_ROWS_OF(name, dtype, R, W)                                                          \
    static void name##_##R(const struct decode *d, int64_t lo, int64_t hi) {                       \
        decode_walks(d, dtype, R, W, lo, hi);                                                      \
    }
#define DECODE_OF(name, dtype)                                                                     \
    DECODE_ROWS_OF(name, dtype, 1, WALK_1)                                                         \
    DECODE_ROWS_OF(name, dtype, 2, WALK_2)                                                         \
    DECODE_ROWS_OF(name, dtype, 4, WALK_4)                                                         \
    DECODE_ROWS_OF(name, dtype, 8, WALK_8)
DECODE_OF(decode_f32, DTYPE_F32)
DECODE_OF(decode_f16, DTYPE_F16)
DECODE_OF(decode_bf16, DTYPE_BF16)

typedef void decode_fn(const struct decode *d, int64_t lo, int64_t hi);
static decode_fn *decode_choose(enum dtype dtype, int64_t rows) {
    static decode_fn *const table[DTYPE_COUNT][4] = {
        [DTYPE_F32] = {decode_f32_1, decode_f32_2, decode_f32_4, decode_f32_8},
        [DTYPE_F16] = {decode_f16_1, decode_f16_2, decode_f16_4, decode_f16_8},
        [DTYPE_BF16] = {decode_bf16_1, decode_bf16_2, decode_bf16_4, decode_bf16_8},
    };
    return table[dtype][rows <= 1 ? 0 : rows <= 2 ? 1 : rows <= 4 ? 2 : 3];
}

// A piece is a few strips, all rows: later passes of rows find the weights in the cache.
struct decode_product {
    const struct matmul_args *a;
    int64_t pieces;
};
static int64_t strips_of(const struct matmul_args *a) { return ceil_div(a->out.cols, PANEL) * (PANEL / TILE_COLS); }
static void decode_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct decode_product *p = arg;
    const struct matmul_args *a = p->a;
    (void)thread;
    const int64_t strips = strips_of(a);
    for (int64_t i = lo; i < hi; i++)
        for (int64_t row = 0; row < a->x.rows; row += PASS_ROWS) {
            const struct decode d = {
                .a = a, .rows = min_i64(PASS_ROWS, a->x.rows - row), .strips = strips, .row = row};
            decode_choose(a->w.dtype, d.rows)(&d, strips * i / p->pieces, strips * (i + 1) / p->pieces);
        }
}

static void decode_products(const struct matmul_args *list, int count) {
    struct decode_product p[PROJECT_MOST];
    struct jobs jobs = {0};
    for (int j = 0; j < count; j++) {
        p[j] = (struct decode_product){&list[j], even_pieces(strips_of(&list[j]), 4)};
        jobs_add(&jobs, decode_piece, &p[j], p[j].pieces);
    }
    jobs_run(&jobs, 4 * TILE_COLS * list->x.cols * max_i64(1, list->x.rows));
}

// How a product is done: those of a kind that have x in common are done together.
enum way { WAY_CODED, WAY_DECODE, WAY_TILES };
static enum way way_of(const struct matmul_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && a->w.mats == 1 && a->w.dtype != DTYPE_I32);
    assert(a->out.rows == a->x.rows && a->out.cols == a->w.rows && a->x.cols == a->w.cols);
    if (is_coded(a->w.dtype)) return WAY_CODED;
    return a->w.layout == LAYOUT_DEVICE && a->x.rows <= DECODE_ROWS ? WAY_DECODE : WAY_TILES;
}

static void products(const struct matmul_args *list, int count) {
    for (int j = 0, n; j < count; j += n) {
        const enum way way = way_of(&list[j]);
        for (n = 1; j + n < count && way != WAY_TILES && way_of(&list[j + n]) == way;) n++;
        if (way == WAY_CODED) coded_products(list + j, n);
        if (way == WAY_DECODE) decode_products(list + j, n);
        if (way != WAY_TILES) continue;
        const struct matmul_args *a = &list[j];
        struct product p = {.left = {a->x.data, row_stride(&a->x), false},
                            .kind = RIGHT_WEIGHT,
                            .w = &a->w,
                            .out = &a->out,
                            .terms = a->x.cols,
                            .scale = one_if_zero(a->scale),
                            .accumulate = a->accumulate};
        product_run(&p);
    }
}

static void matmul(const struct matmul_args *a) { products(a, 1); }

// ---------------------------------------------------------------------------------------------------------------
// Packing at load, and embedding rows out of panels.

struct packing {
    const struct tensor *from;
    unsigned char *to;
    size_t panel_bytes;
};

static void pack_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct packing *p = arg;
    const struct tensor *w = p->from;
    (void)thread;
    for (int64_t i = lo; i < hi; i++)
        panel_packs[w->dtype](w, i * PANEL, min_i64(PANEL, w->rows - i * PANEL),
                              p->to + (size_t)i * p->panel_bytes);
}

static bool weight_load(struct tensor *device, const struct tensor *host, bool *owned,
                        struct err *err) {
    assert(host->layout == LAYOUT_ROWS && host->data);
    const enum dtype t = host->dtype;
    if (t >= DTYPE_COUNT || !dtype_row(t)->to_f32)
        return err_set(err, "cpu: expected weights of numbers or a block format, found %s",
                       t < DTYPE_COUNT ? dtype_row(t)->name : "an unknown type");
    size_t row_bytes, bytes;
    if (host->mats != 1 || host->rows < 1 || host->cols < 1 ||
        !dtype_row_bytes(t, host->cols, &row_bytes) || host->row_bytes < row_bytes)
        return err_set(err,
                       "cpu: expected one matrix of whole %s rows, found %lld of %lld x %lld in "
                       "rows of %zu bytes",
                       dtype_row(t)->name, (long long)host->mats, (long long)host->rows,
                       (long long)host->cols, host->row_bytes);
    *device = *host;
    *owned = false;
    if (host->rows == 1) return true; // a vector gains nothing, and may be a norm's weight
    const int64_t panels = ceil_div(host->rows, PANEL);
    device->row_bytes = row_bytes;
    const size_t each = panel_bytes(device);
    if (!size_mul(each, (size_t)panels, &bytes))
        return err_set(err, "cpu: a weight of %lld x %lld does not fit the address space",
                       (long long)host->rows, (long long)host->cols);
    struct packing p = {host, cpu_weight_alloc(bytes, err), each};
    if (!p.to) return false;
    cpu_expect_full(p.to, bytes);
    pool_for(panels, max_i64(1, (1 << 18) / (int64_t)each), pack_piece, &p);
    device->data = p.to;
    device->layout = LAYOUT_DEVICE;
    *owned = true;
    return true;
}

// Row `id` of packed weights as floats.
static void unpack_row(const struct tensor *w, int64_t id, float *out) {
    const unsigned char *panel =
        (const unsigned char *)w->data + (size_t)(id / PANEL) * panel_bytes(w);
    const int64_t l = id % PANEL;
    if (is_coded(w->dtype)) {
        coded_unpack_row(w->dtype, panel, (int)l, w->cols, out);
        return;
    }
    for (int64_t k = 0; k < w->cols; k++) {
        uint16_t half;
        if (w->dtype == DTYPE_F32) {
            memcpy(&out[k], panel + (k * PANEL + l) * 4, sizeof out[k]);
        } else if (w->dtype == DTYPE_F16 || w->dtype == DTYPE_BF16) {
            memcpy(&half, panel + (k * PANEL + l) * 2, sizeof half);
            out[k] = w->dtype == DTYPE_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
}

static void embed_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct embed_args *a = arg;
    (void)thread;
    const vf scale = v_set1(one_if_zero(a->scale));
    const int64_t C = a->out.cols;
    for (int64_t i = lo; i < hi; i++) {
        float *out = row_f32(&a->out, i);
        assert(a->ids[i] >= 0 && a->ids[i] < a->table.rows);
        if (a->table.layout == LAYOUT_DEVICE)
            unpack_row(&a->table, a->ids[i], out);
        else
            to_floats(a->table.dtype,
                      (const char *)a->table.data + (size_t)a->ids[i] * a->table.row_bytes, out, C);
        for (int64_t c = 0; c < C; c += VW)
            v_store_n(out + c, v_mul(scale, v_load_n(out + c, C - c)), C - c);
    }
}

static void embed(const struct embed_args *a) {
    assert(is_f32(&a->out) && a->table.mats == 1 && a->table.dtype != DTYPE_I32 &&
           a->out.cols == a->table.cols);
    pool_for(a->out.rows, grain_of_rows(a->out.cols, 8192), embed_piece, (void *)a);
}
