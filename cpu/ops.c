// ops.c: what every op means, in plain C. The formulas stand in backend.h; this is the same, a loop for a sum.
//
// Kept for ever as the reference: the fast files and the GPU are held equal to it, and it is what runs where they
// cannot. It is shaped so that a compiler vectorizes it, but assumes no processor.
//
// The shape of an op: an entry that checks shapes and cuts the work into pieces, and a `_piece` that owns its outputs
// alone. Pieces are cut by sizes, never by threads, and the order of every sum is fixed by what is summed:
//   - products: chains of 256 terms from zero, added in order (chain_product); 16 outputs side by side, which touches
//     no output's own order
//   - gradients of weights: one partial sum per segment of rows, added in order
//   - everything else: inside one row, from left to right, in double where a sum stands alone
// A product is rounded before it is added (the build forbids contraction); fast versions fuse, so they agree closely,
// not bitwise.
//
// Sources: RMSNorm (Zhang & Sennrich 2019), RoPE (Su et al. 2021), GLU (Shazeer 2020), attention's backward pass from
// the log-sum-exp (Dao 2023, FlashAttention-2, section 3), AdamW (Loshchilov & Hutter 2019).
#include "cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, CHAIN = 256, ROWS_AT_ONCE = 64 };
enum { SLOT_SCORES, SLOT_KEY, SLOT_ROW, SLOT_SHARED };

// ---------------------------------------------------------------------------------------------------------------
// Rows and pieces.

static bool is_rows(const struct tensor *t) {
    size_t need;
    if (!t->data && t->rows > 0) return false;
    if (t->layout != LAYOUT_ROWS || t->mats != 1 || t->rows < 0 || t->cols < 0) return false;
    return dtype_row_bytes(t->dtype, t->cols, &need) && (t->row_bytes >= need || t->rows <= 1);
}
static bool is_f32(const struct tensor *t) { return is_rows(t) && t->dtype == DTYPE_F32; }
// Here a cache lies row after row, whatever it is called.
static bool is_cache(const struct tensor *t, int64_t head_size) {
    struct tensor rows = *t;
    rows.layout = LAYOUT_ROWS;
    if (t->layout == LAYOUT_DEVICE && t->rows % CACHE_ROWS) return false;
    if (t->dtype == DTYPE_Q8_0 || t->dtype == DTYPE_Q4_0) return is_rows(&rows) && head_size % QK == 0;
    return is_rows(&rows) && (t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16);
}
static bool same_shape(const struct tensor *a, const struct tensor *b) {
    return a->rows == b->rows && a->cols == b->cols;
}
// One run of numbers without gaps.
static bool is_flat(const struct tensor *t) {
    return is_f32(t) && (t->rows <= 1 || t->row_bytes == (size_t)t->cols * sizeof(float));
}

static void *row_at(const struct tensor *t, int64_t i) {
    return (char *)t->data + (size_t)i * t->row_bytes;
}
static float *row_f32(const struct tensor *t, int64_t i) { return row_at(t, i); }

// Numbers [at, at + n) of row i as f32: in place where they are f32 already, else converted into `into`.
static const float *row_read(const struct tensor *t, int64_t i, int64_t at, int64_t n,
                             float *into) {
    const struct dtype_row *d = dtype_row(t->dtype);
    assert(at % d->block_weights == 0);
    const char *from = (const char *)row_at(t, i) + at / d->block_weights * d->block_bytes;
    if (t->dtype == DTYPE_F32) return (const float *)(const void *)from;
    d->to_f32(from, into, n);
    return into;
}

static float one_if_zero(float scale) { return scale == 0 ? 1 : scale; }
static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Items per piece so that a piece is worth handing out: about `work` operations each of `each`.
static int64_t grain_for(int64_t each, int64_t work) {
    return each >= work ? 1 : work / (each > 0 ? each : 1);
}
static int64_t grain_of_rows(int64_t cols) { return grain_for(cols, 8192); }

// A sum of products in a fixed order: 16 chains, then halves onto halves.
static float dot(const float *a, const float *b, int64_t n) {
    float sum[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) sum[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) sum[l] += a[i] * b[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

// y += s * x
static void add_scaled(float *y, float s, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += s * x[i];
}

// ---------------------------------------------------------------------------------------------------------------
// Embedding.

static void embed_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct embed_args *a = arg;
    (void)thread;
    float scale = one_if_zero(a->scale);
    for (int64_t i = lo; i < hi; i++) {
        assert(a->ids[i] >= 0 && a->ids[i] < a->table.rows);
        float *out = row_f32(&a->out, i);
        dtype_row(a->table.dtype)->to_f32(row_at(&a->table, a->ids[i]), out, a->out.cols);
        for (int64_t c = 0; c < a->out.cols; c++) out[c] = scale * out[c];
    }
}

static void plain_embed(const struct embed_args *a) {
    assert(is_f32(&a->out) && is_rows(&a->table) && a->table.dtype != DTYPE_I32);
    assert(a->out.cols == a->table.cols);
    pool_for(a->out.rows, grain_of_rows(a->out.cols), embed_piece, (void *)a);
}

// A piece is a range of columns, so that rows add in order whatever ids repeat.
static void embed_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct embed_back_args *a = arg;
    (void)thread;
    float scale = one_if_zero(a->scale);
    for (int64_t i = 0; i < a->dout.rows; i++) {
        assert(a->ids[i] >= 0 && a->ids[i] < a->dtable.rows);
        add_scaled(row_f32(&a->dtable, a->ids[i]) + lo, scale, row_f32(&a->dout, i) + lo, hi - lo);
    }
}

static void plain_embed_back(const struct embed_back_args *a) {
    assert(is_f32(&a->dtable) && is_f32(&a->dout) && a->dtable.cols == a->dout.cols);
    pool_for(a->dout.cols, 64, embed_back_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// RMSNorm. With r = 1 / sqrt(mean(x^2) + eps):  out = x r w.
//   dx += r w dout - x r^3 / C * sum(dout w x) ;  dw += sum over rows of dout x r

static float inverse_rms(const float *x, int64_t n, float eps) {
    double sum = 0;
    for (int64_t c = 0; c < n; c++) sum += (double)x[c] * x[c];
    return (float)(1 / sqrt(sum / (double)n + eps));
}

static void rmsnorm_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_args *a = arg;
    (void)thread;
    const float *w = row_f32(&a->weight, 0);
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&a->x, i);
        float *out = row_f32(&a->out, i);
        float r = inverse_rms(x, a->x.cols, a->eps);
        for (int64_t c = 0; c < a->x.cols; c++) out[c] = x[c] * r * w[c];
    }
}

static void plain_rmsnorm(const struct rmsnorm_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && same_shape(&a->out, &a->x));
    assert(is_f32(&a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols);
    pool_for(a->x.rows, grain_of_rows(a->x.cols), rmsnorm_piece, (void *)a);
}

struct rmsnorm_back_job {
    const struct rmsnorm_back_args *a;
    float *inverse; // r of every row
};

static void rmsnorm_back_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_back_job *job = arg;
    const struct rmsnorm_back_args *a = job->a;
    (void)thread;
    int64_t C = a->x.cols;
    const float *w = row_f32(&a->weight, 0);
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&a->x, i), *dout = row_f32(&a->dout, i);
        float *dx = row_f32(&a->dx, i);
        float r = inverse_rms(x, C, a->eps);
        job->inverse[i] = r;
        double sum = 0;
        for (int64_t c = 0; c < C; c++) sum += (double)(dout[c] * w[c]) * x[c];
        float along_x = (float)(sum * r * r * r / (double)C);
        for (int64_t c = 0; c < C; c++) dx[c] += r * w[c] * dout[c] - along_x * x[c];
    }
}

static void rmsnorm_back_columns(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_back_job *job = arg;
    const struct rmsnorm_back_args *a = job->a;
    (void)thread;
    float *dw = row_f32(&a->dweight, 0);
    for (int64_t from = lo; from < hi; from += LANES) {
        int lanes = (int)min_i64(LANES, hi - from);
        for (int64_t start = 0; start < a->x.rows; start += a->segment) {
            float sum[LANES] = {0};
            for (int64_t i = start; i < start + a->segment; i++) {
                const float *x = row_f32(&a->x, i) + from, *dout = row_f32(&a->dout, i) + from;
                for (int l = 0; l < lanes; l++) sum[l] += dout[l] * (x[l] * job->inverse[i]);
            }
            for (int l = 0; l < lanes; l++) dw[from + l] += sum[l];
        }
    }
}

static void plain_rmsnorm_back(const struct rmsnorm_back_args *a) {
    assert(is_f32(&a->dx) && is_f32(&a->dout) && is_f32(&a->x));
    assert(same_shape(&a->dx, &a->x) && same_shape(&a->dout, &a->x));
    assert(is_f32(&a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols);
    assert(is_f32(&a->dweight) && same_shape(&a->dweight, &a->weight));
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    struct rmsnorm_back_job job = {a,
                                   cpu_scratch(0, SLOT_SHARED, (size_t)a->x.rows * sizeof(float))};
    pool_for(a->x.rows, grain_of_rows(a->x.cols), rmsnorm_back_rows, &job);
    pool_for(a->x.cols, 2 * LANES, rmsnorm_back_columns, &job);
}

// ---------------------------------------------------------------------------------------------------------------
// Products with weights. All three are one inner loop over a panel: up to 256 terms of 16 neighbouring outputs.

struct panel {
    float at[CHAIN][LANES]; // [term][output]
};

// sum[l] += (chain from zero over the terms of x[t] * panel[t][l]). Eight terms of a lane at a time, in their order:
// left to itself gcc 12 keeps the chains in memory between terms (step matmul F32: 3.6 against 16.8 GFLOP/s,
// `bench_ops plain 2 matmul` on two cores of a Xeon, November 2026).
static void chain_product(const float *x, const struct panel *w, int64_t terms, float sum[LANES]) {
    float chain[LANES] = {0};
    int64_t t = 0;
    for (; t + 8 <= terms; t += 8)
        for (int l = 0; l < LANES; l++) {
            float run = chain[l];
            for (int k = 0; k < 8; k++) run = x[t + k] * w->at[t + k][l] + run;
            chain[l] = run;
        }
    for (; t < terms; t++)
        for (int l = 0; l < LANES; l++) chain[l] = x[t] * w->at[t][l] + chain[l];
    for (int l = 0; l < LANES; l++) sum[l] += chain[l];
}

// Sums of one piece of a product: up to 64 rows of 16 columns, written out as scale * sum (+ what was there).
struct tile {
    float sum[ROWS_AT_ONCE][LANES];
};
static void tile_write(const struct tile *tile, const struct tensor *out, int64_t row, int rows,
                       int64_t col, int cols, float scale, bool accumulate) {
    for (int i = 0; i < rows; i++) {
        float *to = row_f32(out, row + i) + col;
        for (int l = 0; l < cols; l++)
            to[l] = accumulate ? scale * tile->sum[i][l] + to[l] : scale * tile->sum[i][l];
    }
}

// n numbers as a product of this precision takes them: as they are, or rounded to bf16 in `into`, which may be x.
static const float *taken(enum precision precision, const float *x, int64_t n, float *into) {
    if (precision == PRECISION_F32) return x;
    for (int64_t i = 0; i < n; i++) into[i] = bf16_to_f32(bf16_from_f32(x[i]));
    return into;
}

// Pieces of a product: 16 columns of 64 rows, numbered so that those which share columns follow each other.
struct cut {
    int64_t row, col;
    int rows, cols;
};
static int64_t cut_count(const struct tensor *out) {
    return ceil_div(out->rows, ROWS_AT_ONCE) * ceil_div(out->cols, LANES);
}
static struct cut cut_at(const struct tensor *out, int64_t i) {
    int64_t down = ceil_div(out->rows, ROWS_AT_ONCE);
    int64_t row = i % down * ROWS_AT_ONCE, col = i / down * LANES;
    return (struct cut){row, col, (int)min_i64(ROWS_AT_ONCE, out->rows - row),
                        (int)min_i64(LANES, out->cols - col)};
}
static int64_t cut_grain(const struct tensor *out, int64_t terms) {
    return grain_for(min_i64(out->rows, ROWS_AT_ONCE) * LANES * terms, 1 << 17);
}

// x as products with block formats see it: 32 columns at a time, whole multiples of max |x| / 32512.
static void round_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct tensor *x = arg; // rows packed
    (void)thread;
    for (int64_t i = lo; i < hi; i++)
        for (int64_t c = 0; c < x->cols; c += QK) {
            float *v = row_f32(x, i) + c, most = 0;
            for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(v[j]));
            float inverse = most < 1e-30f ? 0 : 32512 / most, step = most / 32512;
            for (int j = 0; j < QK; j++) v[j] = step * rintf(v[j] * inverse);
        }
}

static void matmul_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct matmul_args *a = arg;
    (void)thread;
    int64_t K = a->x.cols;
    struct panel panel = {0};
    float numbers[CHAIN], row[CHAIN];
    for (int64_t p = lo; p < hi; p++) {
        struct cut cut = cut_at(&a->out, p);
        struct tile tile = {0};
        for (int64_t k = 0; k < K; k += CHAIN) {
            int64_t terms = min_i64(CHAIN, K - k);
            for (int l = 0; l < cut.cols; l++) {
                const float *w = row_read(&a->w, cut.col + l, k, terms, numbers);
                w = taken(a->precision, w, terms, numbers);
                for (int64_t t = 0; t < terms; t++) panel.at[t][l] = w[t];
            }
            for (int i = 0; i < cut.rows; i++) {
                const float *x = taken(a->precision, row_f32(&a->x, cut.row + i) + k, terms, row);
                chain_product(x, &panel, terms, tile.sum[i]);
            }
        }
        tile_write(&tile, &a->out, cut.row, cut.rows, cut.col, cut.cols, one_if_zero(a->scale),
                   a->accumulate);
    }
}

static void plain_matmul(const struct matmul_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && is_rows(&a->w) && a->w.dtype != DTYPE_I32);
    assert(a->out.rows == a->x.rows && a->out.cols == a->w.rows && a->x.cols == a->w.cols);
    struct matmul_args b = *a;
    if (a->precision == PRECISION_F32 && dtype_row(a->w.dtype)->block_weights > 1) {
        size_t row_bytes = (size_t)a->x.cols * sizeof(float);
        b.x = tensor_f32(cpu_scratch(0, SLOT_SHARED, (size_t)a->x.rows * row_bytes), a->x.rows,
                         a->x.cols);
        for (int64_t i = 0; i < a->x.rows; i++)
            memcpy(row_f32(&b.x, i), row_f32(&a->x, i), row_bytes);
        pool_for(b.x.rows, grain_of_rows(b.x.cols), round_piece, &b.x);
    }
    pool_for(cut_count(&b.out), cut_grain(&b.out, b.x.cols), matmul_piece, &b);
}

static void plain_matmul_experts(const struct matmul_experts_args *a) {
    cpu_matmul_experts(a, plain_matmul);
}

static void matmul_dx_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct matmul_dx_args *a = arg;
    (void)thread;
    int64_t M = a->dout.cols;
    struct panel panel = {0};
    float numbers[LANES], row[CHAIN];
    for (int64_t p = lo; p < hi; p++) {
        struct cut cut = cut_at(&a->dx, p);
        struct tile tile = {0};
        for (int64_t m = 0; m < M; m += CHAIN) {
            int64_t terms = min_i64(CHAIN, M - m);
            for (int64_t t = 0; t < terms; t++) {
                const float *w = row_read(&a->w, m + t, cut.col, cut.cols, numbers);
                w = taken(a->precision, w, cut.cols, numbers);
                memcpy(panel.at[t], w, (size_t)cut.cols * sizeof(float));
            }
            for (int i = 0; i < cut.rows; i++) {
                const float *dout = taken(a->precision, row_f32(&a->dout, cut.row + i) + m, terms, row);
                chain_product(dout, &panel, terms, tile.sum[i]);
            }
        }
        tile_write(&tile, &a->dx, cut.row, cut.rows, cut.col, cut.cols, one_if_zero(a->scale),
                   a->accumulate);
    }
}

static void plain_matmul_dx(const struct matmul_dx_args *a) {
    assert(is_f32(&a->dx) && is_f32(&a->dout) && is_rows(&a->w));
    assert(a->w.dtype == DTYPE_F32 || a->w.dtype == DTYPE_BF16);
    assert(a->dx.rows == a->dout.rows && a->dx.cols == a->w.cols && a->dout.cols == a->w.rows);
    pool_for(cut_count(&a->dx), cut_grain(&a->dx, a->dout.cols), matmul_dx_piece, (void *)a);
}

// The terms are rows here: 16 columns of x make the panel, a column of dout, gathered, is what runs along it.
static void matmul_dw_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct matmul_dw_args *a = arg;
    (void)thread;
    struct panel panel = {0};
    float column[LANES][CHAIN], numbers[LANES];
    for (int64_t p = lo; p < hi; p++) {
        struct cut cut = cut_at(&a->dw, p);
        for (int64_t start = 0; start < a->x.rows; start += a->segment) {
            struct tile tile = {0};
            for (int64_t at = 0; at < a->segment; at += CHAIN) {
                int64_t terms = min_i64(CHAIN, a->segment - at);
                for (int64_t t = 0; t < terms; t++) {
                    const float *x = row_f32(&a->x, start + at + t) + cut.col;
                    memcpy(panel.at[t], taken(a->precision, x, cut.cols, numbers),
                           (size_t)cut.cols * sizeof(float));
                }
                for (int m = 0; m < cut.rows; m += LANES) {
                    int lanes = (int)min_i64(LANES, cut.rows - m);
                    for (int64_t t = 0; t < terms; t++) {
                        const float *dout = row_f32(&a->dout, start + at + t) + cut.row + m;
                        dout = taken(a->precision, dout, lanes, numbers);
                        for (int l = 0; l < lanes; l++) column[l][t] = dout[l];
                    }
                    for (int l = 0; l < lanes; l++)
                        chain_product(column[l], &panel, terms, tile.sum[m + l]);
                }
            }
            tile_write(&tile, &a->dw, cut.row, cut.rows, cut.col, cut.cols, one_if_zero(a->scale),
                       start > 0 || !a->fresh);
        }
    }
}

static void plain_matmul_dw(const struct matmul_dw_args *a) {
    assert(is_f32(&a->dw) && is_f32(&a->dout) && is_f32(&a->x));
    assert(a->dout.rows == a->x.rows && a->dw.rows == a->dout.cols && a->dw.cols == a->x.cols);
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    pool_for(cut_count(&a->dw), cut_grain(&a->dw, a->x.rows), matmul_dw_piece, (void *)a);
}

static void plain_matmul_experts_dx(const struct matmul_experts_dx_args *a) { cpu_matmul_experts_dx(a, plain_matmul_dx); }
static void plain_matmul_experts_dw(const struct matmul_experts_dw_args *a) { cpu_matmul_experts_dw(a, plain_matmul_dw); }

// ---------------------------------------------------------------------------------------------------------------
// Rotary positions. The angle is taken in double: at position 100000 a float angle is off by 0.004.

static void rope_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rope_args *a = arg;
    (void)thread;
    int64_t pairs = a->rotated / 2, apart = a->pairs == ROPE_HALVES ? pairs : 1;
    int64_t step = a->pairs == ROPE_HALVES ? 1 : 2;
    for (int64_t i = lo; i < hi; i++) {
        for (int64_t j = 0; j < pairs; j++) {
            double angle = (double)a->pos[i] * a->freq[j];
            float c = (float)cos(angle) * one_if_zero(a->scale);
            float s = (float)sin(a->inverse ? -angle : angle) * one_if_zero(a->scale);
            for (float *x = row_f32(&a->x, i) + j * step, *end = row_f32(&a->x, i) + a->x.cols;
                 x < end; x += a->head_size) {
                float first = x[0], second = x[apart];
                x[0] = first * c - second * s;
                x[apart] = first * s + second * c;
            }
        }
    }
}

static void plain_rope(const struct rope_args *a) {
    assert(is_f32(&a->x) && a->head_size > 0 && a->x.cols % a->head_size == 0);
    assert(a->rotated >= 0 && a->rotated <= a->head_size && a->rotated % 2 == 0);
    pool_for(a->x.rows, grain_for(a->x.cols, 2048), rope_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Attention.

static void store_rows_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct store_rows_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        assert(a->rows[i] >= 0 && a->rows[i] < a->dst.rows);
        dtype_row(a->dst.dtype)
            ->from_f32(row_f32(&a->src, i), row_at(&a->dst, a->rows[i]), a->src.cols);
    }
}

static void plain_store_rows(const struct store_rows_args *a) {
    assert(is_cache(&a->dst, a->head_size) && is_f32(&a->src) && a->dst.cols == a->src.cols);
    pool_for(a->src.rows, grain_of_rows(a->src.cols), store_rows_piece, (void *)a);
}

// A piece is a range of (row, head). Scores of the row's keys first, then the softmax, then the values.
static void attend_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_args *a = arg;
    int64_t H = a->heads, D = a->head_size, group = H / a->kv_heads;
    float *scores = cpu_scratch(thread, SLOT_SCORES, (size_t)a->k.rows * sizeof(float));
    float *numbers = cpu_scratch(thread, SLOT_KEY, (size_t)D * sizeof(float));
    float *query = cpu_scratch(thread, SLOT_ROW, (size_t)D * sizeof(float));
    for (int64_t p = lo; p < hi; p++) {
        int64_t i = p / H, h = p % H, at = h / group * D, first = a->lo[i],
                count = a->hi[i] - first;
        const float *q = taken(a->precision, row_f32(&a->q, i) + h * D, D, query);
        float *out = row_f32(&a->out, i) + h * D;
        assert(count <= 0 || (first >= 0 && a->hi[i] <= a->k.rows));
        float most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < count; j++) {
            const float *k = row_read(&a->k, first + j, at, D, numbers);
            scores[j] = a->scale * dot(q, taken(a->precision, k, D, numbers), D);
            if (a->softcap > 0) scores[j] = a->softcap * tanhf(scores[j] / a->softcap);
            most = fmaxf(most, scores[j]);
        }
        memset(out, 0, (size_t)D * sizeof(float));
        struct rng_row row = a->drop.below > 0 ? dropout_row(&a->drop, i, h) : (struct rng_row){0, 0};
        for (int64_t j = 0; j < count; j++) {
            float e = expf(scores[j] - most);
            sum += e;
            if (a->drop.below > 0 && rng_row_at(row, (uint32_t)j) < a->drop.below) continue;
            const float *v = row_read(&a->v, first + j, at, D, numbers);
            add_scaled(out, *taken(a->precision, &e, 1, &e), taken(a->precision, v, D, numbers), D);
        }
        if (count > 0)
            for (int64_t d = 0; d < D; d++) out[d] = dropout_factor(&a->drop) * (out[d] / sum);
        if (a->lse) a->lse[p] = count > 0 ? most + logf(sum) : -INFINITY;
    }
}

static void plain_attend(const struct attend_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(is_f32(&a->out) && is_f32(&a->q) && same_shape(&a->out, &a->q));
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(is_cache(&a->k, a->head_size) && is_cache(&a->v, a->head_size) && same_shape(&a->k, &a->v));
    assert(a->drop.below < 65536 && (a->drop.below == 0 || a->k.layout == LAYOUT_ROWS));
    // By the capacity of the cache, not by what is in it: it stays the same while a text grows.
    cpu_scratch_reserve(SLOT_SCORES, (size_t)a->k.rows * sizeof(float));
    cpu_scratch_reserve(SLOT_KEY, (size_t)a->head_size * sizeof(float));
    cpu_scratch_reserve(SLOT_ROW, (size_t)a->head_size * sizeof(float));
    pool_for(a->q.rows * a->heads, 1, attend_piece, (void *)a);
}

// With p_j = exp(score_j - lse), f what dropout makes of it, and delta = dout . out = sum_j f p_j (dout . v_j):
//   dv_j += f p_j dout ; ds_j = scale p_j (f dout . v_j - delta) ; dq += ds_j k_j ; dk_j += ds_j q
// A piece is a range of (segment, kv head): its rows of dk and dv belong to nobody else.
static void attend_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_back_args *a = arg;
    (void)thread;
    int64_t H = a->heads, G = a->kv_heads, D = a->head_size, group = H / G;
    size_t head_bytes = (size_t)D * sizeof(float);
    for (int64_t p = lo; p < hi; p++) {
        int64_t start = p / G * a->segment, end = start + a->segment, g = p % G;
        for (int64_t j = start; j < end; j++) {
            memset(row_f32(&a->dk, j) + g * D, 0, head_bytes);
            memset(row_f32(&a->dv, j) + g * D, 0, head_bytes);
        }
        for (int64_t i = start; i < end; i++) {
            assert(a->hi[i] <= a->lo[i] || (a->lo[i] >= start && a->hi[i] <= end));
            for (int64_t h = g * group; h < (g + 1) * group; h++) {
                const float *q = row_f32(&a->q, i) + h * D, *dout = row_f32(&a->dout, i) + h * D;
                float *dq = row_f32(&a->dq, i) + h * D;
                memset(dq, 0, head_bytes);
                float delta = dot(dout, row_f32(&a->out, i) + h * D, D);
                struct rng_row row = a->drop.below > 0 ? dropout_row(&a->drop, i, h) : (struct rng_row){0, 0};
                for (int64_t j = a->lo[i]; j < a->hi[i]; j++) {
                    const float *k = row_f32(&a->k, j) + g * D, *v = row_f32(&a->v, j) + g * D;
                    float weight = expf(a->scale * dot(q, k, D) - a->lse[i * H + h]);
                    bool dropped = a->drop.below > 0 && rng_row_at(row, (uint32_t)(j - a->lo[i])) < a->drop.below;
                    float factor = dropped ? 0 : dropout_factor(&a->drop);
                    float slope = a->scale * weight * (factor * dot(dout, v, D) - delta);
                    add_scaled(row_f32(&a->dv, j) + g * D, factor * weight, dout, D);
                    add_scaled(dq, slope, k, D);
                    add_scaled(row_f32(&a->dk, j) + g * D, slope, q, D);
                }
            }
        }
    }
}

static void plain_attend_back(const struct attend_back_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(is_f32(&a->dq) && is_f32(&a->dout) && is_f32(&a->out) && is_f32(&a->q) && a->lse);
    assert(same_shape(&a->dq, &a->q) && same_shape(&a->dout, &a->q) && same_shape(&a->out, &a->q));
    assert(is_f32(&a->dk) && is_f32(&a->dv) && is_f32(&a->k) && is_f32(&a->v));
    assert(same_shape(&a->dk, &a->k) && same_shape(&a->dv, &a->v) && same_shape(&a->k, &a->v));
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(a->k.rows == a->q.rows && a->segment > 0 && a->q.rows % a->segment == 0);
    pool_for(a->q.rows / a->segment * a->kv_heads, 1, attend_back_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Gated units. Both are x s(u) with s(u) = 1 / (1 + e^-u): SILU with u = x, GELU with
// u = 2 sqrt(2/pi) (x + .044715 x^3), as (1 + tanh v) / 2 = s(2v). The slope is s + x s(u) s(-u) u'. Written so, neither
// tail cancels: 1 + tanh v and 1 - s would keep nothing of a result of 1e-6.

#define GELU_LINE 1.59576912160573071176f // 2 sqrt(2/pi)
#define GELU_CUBE 0.044715f

static float sigmoid(float u) { return 1 / (1 + expf(-u)); }

static float activate(enum glu_kind kind, float x, float *slope) {
    float u = x, u_slope = 1;
    if (kind == GLU_GELU) {
        u = GELU_LINE * (x + GELU_CUBE * x * x * x);
        u_slope = GELU_LINE * (1 + 3 * GELU_CUBE * x * x);
    }
    float s = sigmoid(u);
    if (slope) *slope = s + x * s * sigmoid(-u) * u_slope;
    return x * s;
}

static void glu_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct glu_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *gate = row_f32(&a->gate, i);
        const float *up = tensor_present(&a->up) ? row_f32(&a->up, i) : NULL;
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < a->out.cols; c++)
            out[c] = activate(a->kind, gate[c], NULL) * (up ? up[c] : 1);
    }
}

static void plain_glu(const struct glu_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->gate) && same_shape(&a->out, &a->gate));
    assert(!tensor_present(&a->up) || (is_f32(&a->up) && same_shape(&a->out, &a->up)));
    if (a->kind > GLU_GELU) cpu_rare_glu(a);
    else pool_for(a->out.rows, grain_of_rows(8 * a->out.cols), glu_piece, (void *)a);
}

// All inputs of an element are read before its outputs are written, as they may be the same memory.
static void glu_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct glu_back_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *gate = row_f32(&a->gate, i), *up = row_f32(&a->up, i),
                    *dout = row_f32(&a->dout, i);
        float *dgate = row_f32(&a->dgate, i), *dup = row_f32(&a->dup, i), slope;
        for (int64_t c = 0; c < a->dout.cols; c++) {
            float d = dout[c], u = up[c], active = activate(a->kind, gate[c], &slope);
            dgate[c] = d * u * slope;
            dup[c] = d * active;
        }
    }
}

static void plain_glu_back(const struct glu_back_args *a) {
    assert(a->kind <= GLU_GELU);
    assert(is_f32(&a->dgate) && is_f32(&a->dup) && is_f32(&a->dout) && is_f32(&a->gate) &&
           is_f32(&a->up));
    assert(same_shape(&a->dgate, &a->dout) && same_shape(&a->dup, &a->dout));
    assert(same_shape(&a->gate, &a->dout) && same_shape(&a->up, &a->dout));
    pool_for(a->dout.rows, grain_of_rows(8 * a->dout.cols), glu_back_piece, (void *)a);
}

static void add_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct add_args *a = arg;
    (void)thread;
    float scale = one_if_zero(a->scale);
    for (int64_t i = lo; i < hi; i++) {
        const float *b = row_f32(&a->b, i);
        float *out = row_f32(&a->out, i);
        if (tensor_present(&a->a)) {
            const float *base = row_f32(&a->a, i);
            for (int64_t c = 0; c < a->out.cols; c++) out[c] = base[c] + scale * b[c];
        } else {
            for (int64_t c = 0; c < a->out.cols; c++) out[c] = scale * b[c];
        }
    }
}

static void plain_add(const struct add_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->b) && same_shape(&a->out, &a->b));
    assert(!tensor_present(&a->a) || (is_f32(&a->a) && same_shape(&a->out, &a->a)));
    pool_for(a->out.rows, grain_of_rows(a->out.cols), add_piece, (void *)a);
}

static void dropout_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct dropout_args *a = arg;
    (void)thread;
    float kept = one_if_zero(a->scale) * dropout_factor(&a->drop);
    for (int64_t i = lo; i < hi; i++) {
        struct rng_row row = dropout_row(&a->drop, i, 0);
        const float *b = row_f32(&a->b, i), *base = tensor_present(&a->a) ? row_f32(&a->a, i) : NULL;
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < a->out.cols; c++) {
            float part = (rng_row_at(row, (uint32_t)c) < a->drop.below ? 0 : kept) * b[c];
            out[c] = base ? base[c] + part : part;
        }
    }
}

static void plain_dropout(const struct dropout_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->b) && same_shape(&a->out, &a->b) && a->drop.below < 65536);
    assert(!tensor_present(&a->a) || (is_f32(&a->a) && same_shape(&a->out, &a->a)));
    pool_for(a->out.rows, grain_of_rows(8 * a->out.cols), dropout_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Loss.

// e = exp(z - max) goes over the logits when a gradient is wanted, and becomes it in a second pass.
static void cross_entropy_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct cross_entropy_args *a = arg;
    (void)thread;
    int64_t V = a->logits.cols;
    float by = one_if_zero(a->logit_scale);
    bool grad = a->grad_scale != 0;
    for (int64_t i = lo; i < hi; i++) {
        float *logits = row_f32(&a->logits, i);
        int32_t target = a->targets[i];
        assert(target >= -1 && target < V);
        if (target < 0) {
            a->loss[i] = 0;
            if (grad) memset(logits, 0, (size_t)V * sizeof(float));
            continue;
        }
        float most = -INFINITY, z_target = by * logits[target];
        for (int64_t c = 0; c < V; c++) most = fmaxf(most, by * logits[c]);
        double sum = 0;
        for (int64_t c = 0; c < V; c++) {
            float e = expf(by * logits[c] - most);
            sum += e;
            if (grad) logits[c] = e;
        }
        a->loss[i] = (float)(log(sum) + most - z_target);
        if (!grad) continue;
        float outer = a->grad_scale * by;
        sum /= 1 + 2 * (double)a->z_loss * (log(sum) + most);
        for (int64_t c = 0; c < V; c++)
            logits[c] = outer * ((float)(logits[c] / sum) - (c == target));
    }
}

static void plain_cross_entropy(const struct cross_entropy_args *a) {
    assert(is_f32(&a->logits) && a->logits.cols > 0 && a->loss && a->targets);
    pool_for(a->logits.rows, 1, cross_entropy_piece, (void *)a);
}

static void plain_head_loss(const struct head_loss_args *a) {
    static const struct head_parts parts = {plain_matmul, plain_cross_entropy, plain_matmul_dx, plain_matmul_dw};
    cpu_head_loss(a, &parts);
}

// ---------------------------------------------------------------------------------------------------------------
// Updates.

enum { SQUARES_CHUNK = 4096 };
struct sum_squares_job {
    const float *x;
    int64_t count;
    double *chunk;
};

static void sum_squares_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct sum_squares_job *job = arg;
    (void)thread;
    for (int64_t p = lo; p < hi; p++) {
        int64_t end = min_i64(job->count, (p + 1) * SQUARES_CHUNK);
        double sum = 0;
        for (int64_t i = p * SQUARES_CHUNK; i < end; i++) sum += (double)job->x[i] * job->x[i];
        job->chunk[p] = sum;
    }
}

static void plain_sum_squares(const struct sum_squares_args *a) {
    assert(is_flat(&a->x) && a->out);
    int64_t count = a->x.rows * a->x.cols, chunks = ceil_div(count, SQUARES_CHUNK);
    struct sum_squares_job job = {a->x.data, count,
                                  cpu_scratch(0, SLOT_SHARED, (size_t)chunks * sizeof(double))};
    pool_for(chunks, 4, sum_squares_piece, &job);
    double sum = 0;
    for (int64_t p = 0; p < chunks; p++) sum += job.chunk[p];
    *a->out = sum;
}

// Pieces of 4096 numbers of a row, a multiple of every block.
enum { CAST_CHUNK = 4096, CAST_AT_ONCE = 512 };

static void cast_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct cast_args *a = arg;
    (void)thread;
    int64_t across = ceil_div(a->src.cols, CAST_CHUNK);
    const struct dtype_row *to = dtype_row(a->dst.dtype);
    float numbers[CAST_AT_ONCE];
    for (int64_t p = lo; p < hi; p++) {
        int64_t i = p / across, start = p % across * CAST_CHUNK,
                end = min_i64(a->src.cols, start + CAST_CHUNK);
        for (int64_t c = start; c < end; c += CAST_AT_ONCE) {
            int64_t n = min_i64(CAST_AT_ONCE, end - c);
            const float *from = row_read(&a->src, i, c, n, numbers);
            to->from_f32(from, (char *)row_at(&a->dst, i) + c / to->block_weights * to->block_bytes,
                         n);
        }
    }
}

static void plain_cast(const struct cast_args *a) {
    assert(is_rows(&a->dst) && is_rows(&a->src) && same_shape(&a->dst, &a->src));
    assert(dtype_row(a->src.dtype)->to_f32 && dtype_row(a->dst.dtype)->from_f32);
    pool_for(a->src.rows * ceil_div(a->src.cols, CAST_CHUNK),
             grain_of_rows(min_i64(a->src.cols, CAST_CHUNK)), cast_piece, (void *)a);
}

static void plain_products(const struct matmul_args *a, int count) {
    for (int j = 0; j < count; j++) plain_matmul(&a[j]);
}
static const struct branch_parts plain_parts = {plain_rmsnorm, plain_products, cpu_bias, plain_glu};
static void plain_project(const struct project_args *a) { cpu_project(a, &plain_parts); }
static void plain_feed_forward(const struct feed_forward_args *a) { cpu_feed_forward(a, &plain_parts); }

void cpu_fill_plain(struct backend *b) {
    b->embed = plain_embed;
    b->embed_back = plain_embed_back;
    b->rmsnorm = plain_rmsnorm;
    b->rmsnorm_back = plain_rmsnorm_back;
    b->matmul = plain_matmul;
    b->matmul_dx = plain_matmul_dx;
    b->matmul_dw = plain_matmul_dw;
    b->rope = plain_rope;
    b->store_rows = plain_store_rows;
    b->attend = plain_attend;
    b->attend_back = plain_attend_back;
    b->glu = plain_glu;
    b->glu_back = plain_glu_back;
    b->add = plain_add;
    b->dropout = plain_dropout;
    b->cross_entropy = plain_cross_entropy;
    b->head_loss = plain_head_loss;
    b->sum_squares = plain_sum_squares;
    cpu_fill_updates(b);
    b->cast = plain_cast;
    b->matmul_experts = plain_matmul_experts;
    b->matmul_experts_dx = plain_matmul_experts_dx;
    b->matmul_experts_dw = plain_matmul_experts_dw;
    cpu_fill_experts(b);
    b->project = plain_project;
    b->feed_forward = plain_feed_forward;
    cpu_fill_families(b);
}
