// kernels_ops.h: everything that is neither a product nor attention. Part of kernels.h.
//
// Element by element there is nothing to order, so any width gives the same bits. The sine is a polynomial of our own (Cody and Waite 1980 for the reduction), so that both levels,
// and every libc, agree.
#include "cpu/kernels_exp.h"
#include "cpu/kernels_drop.h"
#include "cpu/kernels_lanes.h"

// ---------------------------------------------------------------------------------------------------------------
// Functions of a vector.

// Sine and cosine of pos * freq.
INLINE void v_sine(double pos, vf freq, vf *sine, vf *cosine) {
    vf quarter;
    const vf r = v_reduce_angle(pos, freq, &quarter), r2 = v_mul(r, r); // |r| <= pi / 4
    vf s = v_set1(2.75573192e-6f), c = v_set1(2.48015873e-5f);
    s = v_fma(s, r2, v_set1(-1.98412698e-4f));
    s = v_fma(s, r2, v_set1(8.33333333e-3f));
    s = v_fma(s, r2, v_set1(-1.66666667e-1f));
    s = v_fma(v_mul(s, r2), r, r);
    c = v_fma(c, r2, v_set1(-1.38888889e-3f));
    c = v_fma(c, r2, v_set1(4.16666667e-2f));
    c = v_fma(c, r2, v_set1(-0.5f));
    c = v_fma(c, r2, v_set1(1));
    const vf minus_s = v_sub(v_zero(), s), minus_c = v_sub(v_zero(), c);
    *sine = v_select_eq(quarter, 0, s,
                        v_select_eq(quarter, 1, c, v_select_eq(quarter, 2, minus_s, minus_c)));
    *cosine = v_select_eq(quarter, 0, c,
                          v_select_eq(quarter, 1, minus_s, v_select_eq(quarter, 2, minus_c, s)));
}

// ---------------------------------------------------------------------------------------------------------------
// RMSNorm: out = x r w with r = 1 / sqrt(mean(x^2) + eps).
//   dx += r w dout - x r^3 / C * sum(dout w x) ;  dw += sum over the rows of a segment of dout x r

static void rmsnorm_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_args *a = arg;
    (void)thread;
    const float *w = row_f32(&a->weight, 0);
    const int64_t C = a->x.cols;
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&a->x, i);
        float *out = row_f32(&a->out, i);
        const vf r = v_set1(inverse_rms(x, C, a->eps));
        int64_t c = 0;
        for (; c + VW <= C; c += VW)
            v_store(out + c, v_mul(v_mul(v_load(x + c), r), v_load(w + c)));
        if (c < C)
            v_store_n(out + c, v_mul(v_mul(v_load_n(x + c, C - c), r), v_load_n(w + c, C - c)),
                      C - c);
    }
}

static void rmsnorm(const struct rmsnorm_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && same_shape(&a->out, &a->x));
    assert(is_f32(&a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols);
    pool_for(a->x.rows, grain_of_rows(a->x.cols, 1 << 15), rmsnorm_piece, (void *)a);
}

struct rmsnorm_back_job {
    const struct rmsnorm_back_args *a;
    float *inverse; // r of every row
};

static void rmsnorm_back_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_back_job *job = arg;
    const struct rmsnorm_back_args *a = job->a;
    (void)thread;
    const float *w = row_f32(&a->weight, 0);
    const int64_t C = a->x.cols;
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&a->x, i), *dout = row_f32(&a->dout, i);
        float *dx = row_f32(&a->dx, i);
        const float r = inverse_rms(x, C, a->eps);
        job->inverse[i] = r;
        const vf along_x = v_set1((float)((double)row_dot(dout, x, w, C) * r * r * r / (double)C)),
                 rv = v_set1(r);
        for (int64_t c = 0; c < C; c += VW) {
            const int64_t n = C - c;
            const vf d = v_mul(v_mul(rv, v_load_n(w + c, n)), v_load_n(dout + c, n));
            v_store_n(dx + c, v_add(v_load_n(dx + c, n), v_fnma(along_x, v_load_n(x + c, n), d)),
                      n);
        }
    }
}

static void rmsnorm_back_columns(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rmsnorm_back_job *job = arg;
    const struct rmsnorm_back_args *a = job->a;
    (void)thread;
    float *dw = row_f32(&a->dweight, 0);
    const int64_t xs = row_stride(&a->x), ds = row_stride(&a->dout);
    for (int64_t c = lo; c < hi; c += 2 * VW) {
        const int64_t n = min_i64(2 * VW, hi - c), m = max_i64(0, n - VW);
        for (int64_t start = 0; start < a->x.rows; start += a->segment) {
            vf s0 = v_zero(), s1 = v_zero();
            const float *x = row_f32(&a->x, start) + c, *dout = row_f32(&a->dout, start) + c;
            for (int64_t i = 0; i < a->segment; i++, x += xs, dout += ds) {
                const vf r = v_set1(job->inverse[start + i]);
                s0 = v_fma(v_load_n(dout, n), v_mul(v_load_n(x, n), r), s0);
                if (m) s1 = v_fma(v_load_n(dout + VW, m), v_mul(v_load_n(x + VW, m), r), s1);
            }
            v_store_n(dw + c, v_add(v_load_n(dw + c, n), s0), n);
            if (m) v_store_n(dw + c + VW, v_add(v_load_n(dw + c + VW, m), s1), m);
        }
    }
}

static void rmsnorm_back(const struct rmsnorm_back_args *a) {
    assert(is_f32(&a->dx) && is_f32(&a->dout) && is_f32(&a->x));
    assert(same_shape(&a->dx, &a->x) && same_shape(&a->dout, &a->x));
    assert(is_f32(&a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols);
    assert(is_f32(&a->dweight) && same_shape(&a->dweight, &a->weight));
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    struct rmsnorm_back_job job = {a,
                                   cpu_scratch(0, SLOT_SHARED, (size_t)a->x.rows * sizeof(float))};
    pool_for(a->x.rows, grain_of_rows(a->x.cols, 1 << 15), rmsnorm_back_rows, &job);
    pool_for(a->x.cols, PANEL, rmsnorm_back_columns, &job);
}

// ---------------------------------------------------------------------------------------------------------------
// Rotary positions: one sine and cosine per row and pair, used by all heads.

enum { ROPE_PAIRS = 128 }; // at a time

static void rope_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct rope_args *a = arg;
    (void)thread;
    const int64_t pairs = a->rotated / 2, heads = a->x.cols / a->head_size;
    for (int64_t i = lo; i < hi; i++)
        for (int64_t first = 0; first < pairs; first += ROPE_PAIRS) {
            const int64_t count = min_i64(ROPE_PAIRS, pairs - first);
            float sine[ROPE_PAIRS], cosine[ROPE_PAIRS];
            for (int64_t j = 0; j < count; j += VW) {
                vf s, c;
                v_sine(a->inverse ? -(double)a->pos[i] : (double)a->pos[i],
                       v_load_n(a->freq + first + j, count - j), &s, &c);
                v_store(sine + j, s), v_store(cosine + j, c);
            }
            if (a->scale != 0 && a->scale != 1)
                for (int64_t j = 0; j < ROPE_PAIRS; j += VW) {
                    v_store(sine + j, v_mul(v_set1(a->scale), v_load(sine + j)));
                    v_store(cosine + j, v_mul(v_set1(a->scale), v_load(cosine + j)));
                }
            for (int64_t h = 0; h < heads; h++) {
                float *x = row_f32(&a->x, i) + h * a->head_size;
                if (a->pairs == ROPE_HALVES) {
                    float *p = x + first, *q = p + pairs;
                    for (int64_t j = 0; j < count; j += VW) {
                        const int64_t n = count - j;
                        const vf u = v_load_n(p + j, n), w = v_load_n(q + j, n),
                                 c = v_load(cosine + j), s = v_load(sine + j);
                        v_store_n(p + j, v_fnma(w, s, v_mul(u, c)), n);
                        v_store_n(q + j, v_fma(u, s, v_mul(w, c)), n);
                    }
                } else {
                    for (int64_t j = 0; j < count; j++) {
                        float *p = x + 2 * (first + j);
                        const float u = p[0], w = p[1];
                        p[0] = u * cosine[j] - w * sine[j];
                        p[1] = u * sine[j] + w * cosine[j];
                    }
                }
            }
        }
}

static void rope(const struct rope_args *a) {
    assert(is_f32(&a->x) && a->head_size > 0 && a->x.cols % a->head_size == 0);
    assert(a->rotated >= 0 && a->rotated <= a->head_size && a->rotated % 2 == 0);
    pool_for(a->x.rows, grain_of_rows(a->x.cols, 1 << 14), rope_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Gated units.

static void glu_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct glu_args *a = arg;
    (void)thread;
    const int64_t F = a->out.cols;
    for (int64_t i = lo; i < hi; i++) {
        const float *gate = row_f32(&a->gate, i);
        const float *up = tensor_present(&a->up) ? row_f32(&a->up, i) : NULL;
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < F; c += VW) {
            const int64_t n = F - c;
            const vf times = up ? v_load_n(up + c, n) : v_set1(1);
            v_store_n(out + c, glu_one(a->kind, v_load_n(gate + c, n), times), n);
        }
    }
}

static void glu(const struct glu_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->gate) && same_shape(&a->out, &a->gate));
    assert(!tensor_present(&a->up) || (is_f32(&a->up) && same_shape(&a->out, &a->up)));
    if (a->kind > GLU_GELU) cpu_rare_glu(a);
    else pool_for(a->out.rows, grain_of_rows(a->out.cols, 1 << 14), glu_piece, (void *)a);
}

// act = x s ; act' = s + x s (1 - s) u', with 1 - s = e s, e = e^-u, so that nothing cancels where
// s is near 1.
static void glu_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct glu_back_args *a = arg;
    (void)thread;
    const int64_t F = a->dout.cols;
    const vf one = v_set1(1);
    for (int64_t i = lo; i < hi; i++) {
        const float *gate = row_f32(&a->gate, i), *up = row_f32(&a->up, i),
                    *dout = row_f32(&a->dout, i);
        float *dgate = row_f32(&a->dgate, i), *dup = row_f32(&a->dup, i);
        for (int64_t c = 0; c < F; c += VW) {
            const int64_t n = F - c;
            const vf x = v_load_n(gate + c, n), u = v_load_n(up + c, n), d = v_load_n(dout + c, n);
            const vf e = v_exp(v_sub(v_zero(), gate_inner(a->kind, x))),
                     s = v_div(one, v_add(one, e));
            vf slope = one;
            if (a->kind == GLU_GELU)
                slope = v_mul(v_set1(1.5957691216f), v_fma(v_mul(v_set1(0.134145f), x), x, one));
            const vf act = v_mul(x, s), back = v_fma(v_mul(v_mul(act, s), e), slope, s);
            v_store_n(dgate + c, v_mul(v_mul(d, u), back), n);
            v_store_n(dup + c, v_mul(d, act), n);
        }
    }
}

static void glu_back(const struct glu_back_args *a) {
    assert(is_f32(&a->dgate) && is_f32(&a->dup) && is_f32(&a->dout) && is_f32(&a->gate) &&
           is_f32(&a->up));
    assert(same_shape(&a->dgate, &a->dout) && same_shape(&a->dup, &a->dout) &&
           same_shape(&a->gate, &a->dout) && same_shape(&a->up, &a->dout));
    pool_for(a->dout.rows, grain_of_rows(a->dout.cols, 1 << 14), glu_back_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Capped numbers.

static void softcap_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct softcap_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) cap_numbers(row_f32(&a->x, i), a->x.cols, 1, a->cap);
}

static void softcap(const struct softcap_args *a) {
    assert(is_f32(&a->x) && a->cap > 0);
    pool_for(a->x.rows, grain_of_rows(a->x.cols, 1 << 14), softcap_piece, (void *)a);
}

static void matmul_experts(const struct matmul_experts_args *a) { cpu_matmul_experts(a, matmul); }
static void matmul_experts_dx(const struct matmul_experts_dx_args *a) { cpu_matmul_experts_dx(a, matmul_dx); }
static void matmul_experts_dw(const struct matmul_experts_dw_args *a) { cpu_matmul_experts_dw(a, matmul_dw); }

// ---------------------------------------------------------------------------------------------------------------
// Adding.

static void add_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct add_args *a = arg;
    (void)thread;
    const vf scale = v_set1(one_if_zero(a->scale));
    const int64_t C = a->out.cols;
    const bool sum = tensor_present(&a->a);
    for (int64_t i = lo; i < hi; i++) {
        const float *x = sum ? row_f32(&a->a, i) : NULL, *y = row_f32(&a->b, i);
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < C; c += VW) {
            const int64_t n = C - c;
            vf r = v_mul(scale, v_load_n(y + c, n));
            if (sum) r = v_add(v_load_n(x + c, n), r);
            v_store_n(out + c, r, n);
        }
    }
}

static void add(const struct add_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->b) && same_shape(&a->out, &a->b));
    assert(!tensor_present(&a->a) || (is_f32(&a->a) && same_shape(&a->out, &a->a)));
    pool_for(a->out.rows, grain_of_rows(a->out.cols, 1 << 15), add_piece, (void *)a);
}

// out = a + factor * b in columns [c, c + VW) of a row, or those below C.
INLINE void drop_vector(float *out, const float *a, const float *b, vf factor, int64_t c, int64_t C) {
    if (c + VW <= C) {
        const vf part = v_mul(factor, v_load(b + c));
        v_store(out + c, a ? v_add(v_load(a + c), part) : part);
    } else if (c < C) {
        const vf part = v_mul(factor, v_load_n(b + c, C - c));
        v_store_n(out + c, a ? v_add(v_load_n(a + c, C - c), part) : part, C - c);
    }
}

static void dropout_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct dropout_args *a = arg;
    (void)thread;
    const int64_t C = a->out.cols;
    const vf kept = v_set1(one_if_zero(a->scale) * dropout_factor(&a->drop));
    const vu below = (vu)v_set1_words((int32_t)a->drop.below);
    for (int64_t i = lo; i < hi; i++) {
        const struct rng_row row = dropout_row(&a->drop, i, 0);
        const float *x = tensor_present(&a->a) ? row_f32(&a->a, i) : NULL, *y = row_f32(&a->b, i);
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < C; c += 32)
#pragma GCC unroll 4
            for (int v = 0; v < 16; v += VW) {
                const vu words = drop_words(row, (uint32_t)(c / 2 + v));
                drop_vector(out, x, y, drop_low(words, below, kept), c + v, C);
                drop_vector(out, x, y, drop_high(words, below, kept), c + v + 16, C);
            }
    }
}

static void dropout(const struct dropout_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->b) && same_shape(&a->out, &a->b) && a->drop.below < 65536);
    assert(!tensor_present(&a->a) || (is_f32(&a->a) && same_shape(&a->out, &a->a)));
    pool_for(a->out.rows, grain_of_rows(a->out.cols, 1 << 15), dropout_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Loss. Exponentials are taken once: they wait in the row for their sum, when the row becomes a
// gradient anyway.

static void cross_entropy_row(const struct cross_entropy_args *a, int64_t i) {
    float *row = row_f32(&a->logits, i);
    const int64_t V = a->logits.cols, target = a->targets[i];
    assert(target >= -1 && target < V);
    a->loss[i] = 0;
    if (target < 0) {
        if (a->grad_scale != 0) memset(row, 0, (size_t)V * sizeof(float));
        return;
    }
    const float logit_scale = one_if_zero(a->logit_scale), grad = a->grad_scale * logit_scale;
    const vf k = v_set1(logit_scale);
    vf m = v_set1(-INFINITY);
    for (int64_t c = 0; c < V; c += VW)
        m = v_max(m, v_first_or(v_mul(k, v_load_n(row + c, V - c)), V - c, -INFINITY));
    const float most = fold_max(m), at_target = logit_scale * row[target];
    const vf shift = v_set1(most);
    struct lanes s;
    for (int v = 0; v < LANE_VECTORS; v++) s.at[v] = v_zero();
    const bool keep = a->grad_scale != 0;
    EACH_LANE(
        V,
        {
            const vf e = v_exp(v_sub(v_mul(k, v_load(row + at)), shift));
            s.at[v] = v_add(s.at[v], e);
            if (keep) v_store(row + at, e);
        },
        {
            const vf e =
                v_first_or(v_exp(v_sub(v_mul(k, v_load_n(row + at, left)), shift)), left, 0);
            s.at[v] = v_add(s.at[v], e);
            if (keep) v_store_n(row + at, e, left);
        });
    const float sum = fold_add(&s);
    a->loss[i] = (float)(log((double)sum) + (double)most - (double)at_target);
    if (!keep) return;
    const double up = 1 + 2 * (double)a->z_loss * (log((double)sum) + (double)most);
    const vf g = v_set1((float)((double)grad * up / (double)sum));
    for (int64_t c = 0; c < V; c += VW)
        v_store_n(row + c, v_mul(g, v_load_n(row + c, V - c)), V - c);
    row[target] -= grad;
}

static void cross_entropy_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    (void)thread;
    for (int64_t i = lo; i < hi; i++) cross_entropy_row(arg, i);
}

static void cross_entropy(const struct cross_entropy_args *a) {
    assert(is_f32(&a->logits));
    pool_for(a->logits.rows, grain_of_rows(a->logits.cols, 1 << 14), cross_entropy_piece,
             (void *)a);
}

static void head_loss(const struct head_loss_args *a) {
    static const struct head_parts parts = {matmul, cross_entropy, matmul_dx, matmul_dw};
    cpu_head_loss(a, &parts);
}

// ---------------------------------------------------------------------------------------------------------------
// Updates. Tensors here are one run of numbers, cut into chunks.

enum { CHUNK = 4096 };

INLINE bool is_flat(const struct tensor *t) {
    return is_f32(t) && (t->rows <= 1 || t->row_bytes == (size_t)t->cols * sizeof(float));
}

struct squares {
    const struct sum_squares_args *a;
    double *chunks;
};
static void sum_squares_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct squares *s = arg;
    const int64_t count = s->a->x.rows * s->a->x.cols;
    (void)thread;
    for (int64_t p = lo; p < hi; p++) {
        double lane[16] = {0};
        const int64_t end = min_i64(count, (p + 1) * CHUNK);
        for (int64_t i = p * CHUNK; i < end; i += 16)
            for (int64_t l = 0; l < 16 && i + l < end; l += VW)
                v_square_double(lane + l,
                                v_load_n((const float *)s->a->x.data + i + l, end - i - l));
        for (int half = 8; half > 0; half /= 2)
            for (int l = 0; l < half; l++) lane[l] += lane[l + half];
        s->chunks[p] = lane[0];
    }
}

static void sum_squares(const struct sum_squares_args *a) {
    assert(is_flat(&a->x));
    const int64_t chunks = ceil_div(a->x.rows * a->x.cols, CHUNK);
    struct squares s = {a,
                        cpu_scratch(0, SLOT_SHARED, (size_t)max_i64(1, chunks) * sizeof(double))};
    pool_for(chunks, 8, sum_squares_piece, &s);
    double sum = 0;
    for (int64_t p = 0; p < chunks; p++) sum += s.chunks[p];
    *a->out = sum;
}

static const struct branch_parts branch_parts = {rmsnorm, products, cpu_bias, glu};
static void project(const struct project_args *a) { cpu_project(a, &branch_parts); }
static void feed_forward(const struct feed_forward_args *a) { cpu_feed_forward(a, &branch_parts); }

static void fill_ops(struct backend *b) {
    b->project = project;
    b->feed_forward = feed_forward;
    b->rmsnorm = rmsnorm;
    b->rmsnorm_back = rmsnorm_back;
    b->rope = rope;
    b->glu = glu;
    b->glu_back = glu_back;
    b->add = add;
    b->dropout = dropout;
    b->softcap = softcap;
    b->matmul_experts = matmul_experts;
    b->matmul_experts_dx = matmul_experts_dx;
    b->matmul_experts_dw = matmul_experts_dw;
    b->cross_entropy = cross_entropy;
    b->head_loss = head_loss;
    b->sum_squares = sum_squares;
}
