// ops_update.c: optimizers' rules in plain C: what update and adafactor mean (backend.h).
//
// An update is element by element. Adafactor needs means over rows and columns before it can move anything; its passes
// are cut by rows or by columns, each sum in one order.
#include "cpu/cpu.h"

#include <float.h>
#include <math.h>

static bool is_flat(const struct tensor *t) {
    return t->data && t->dtype == DTYPE_F32 && t->layout == LAYOUT_ROWS && t->mats == 1 &&
           (t->rows <= 1 || t->row_bytes == (size_t)t->cols * sizeof(float));
}

static bool fits(const struct tensor *t, const struct tensor *w) { return is_flat(t) && t->rows == w->rows && t->cols == w->cols; }

static bool copy_fits(const struct tensor *t, const struct tensor *w) {
    return !tensor_present(t) || (t->dtype == DTYPE_BF16 && t->rows == w->rows && t->cols == w->cols &&
                                  (t->rows <= 1 || t->row_bytes == (size_t)t->cols * sizeof(uint16_t)));
}

struct cpu_update cpu_update_begin(const struct update_args *a) {
    const bool adam = a->rule == UPDATE_ADAM || a->rule == UPDATE_NADAM, average = a->rule == UPDATE_SCHEDULE_FREE;
    assert(is_flat(&a->w) && fits(&a->g, &a->w) && a->step >= 1 && copy_fits(&a->copy, &a->w));
    assert(fits(&a->m, &a->w) || (a->rule == UPDATE_SGD && !tensor_present(&a->m)));
    assert(!(adam || average) || fits(&a->v, &a->w));
    assert(!average || fits(&a->x, &a->w));
    assert(!tensor_present(&a->out) || (fits(&a->out, &a->w) && !average));
    double t = (double)a->step;
    return (struct cpu_update){
        .a = a,
        .mean = (float)(1 / (1 - pow(a->beta1, t))),
        .ahead = (float)(1 / (1 - pow(a->beta1, t + 1))),
        .square = (float)(1 / (1 - pow(a->beta2, t))),
    };
}

static float direction(const struct cpu_update *u, int64_t i, float grad) {
    const struct update_args *a = u->a;
    float *m = a->m.data, *v = a->v.data, b1 = a->beta1, b2 = a->beta2;
    if (a->rule == UPDATE_SGD) {
        if (!m) return grad;
        m[i] = b1 * m[i] + grad;
        return grad + b1 * m[i];
    }
    if (a->rule == UPDATE_LION) {
        float x = b1 * m[i] + (1 - b1) * grad;
        m[i] = b2 * m[i] + (1 - b2) * grad;
        return (float)((x > 0) - (x < 0));
    }
    v[i] = b2 * v[i] + (1 - b2) * grad * grad;
    float size = sqrtf(v[i] * u->square) + a->eps;
    if (a->rule == UPDATE_SCHEDULE_FREE) return grad / size;
    m[i] = b1 * m[i] + (1 - b1) * grad;
    if (a->rule == UPDATE_ADAM) return m[i] * u->mean / size;
    return (b1 * m[i] * u->ahead + (1 - b1) * grad * u->mean) / size;
}

static void update_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct cpu_update *u = arg;
    const struct update_args *a = u->a;
    const float *g = a->g.data, gs = a->grad_scale == 0 ? 1 : a->grad_scale;
    float *w = a->w.data, *out = a->out.data, *m = a->m.data, *x = a->x.data;
    uint16_t *copy = a->copy.data;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float d = direction(u, i, g[i] * gs) + a->weight_decay * w[i];
        if (out) {
            out[i] = d;
            continue;
        }
        if (a->rule == UPDATE_SCHEDULE_FREE) {
            m[i] -= a->lr * d;
            x[i] += a->mix * (m[i] - x[i]);
            w[i] = x[i] + (1 - a->beta1) * (m[i] - x[i]);
        } else {
            w[i] -= a->lr * d;
        }
        if (copy) copy[i] = bf16_from_f32(w[i]);
    }
}

static void plain_update(const struct update_args *a) {
    struct cpu_update u = cpu_update_begin(a);
    pool_for(a->w.rows * a->w.cols, 8192, update_piece, &u);
}

// ---------------------------------------------------------------------------------------------------------------
// Adafactor.

struct factored {
    const struct adafactor_args *a;
    double share, mean; // of the new in the averages; of the rows' averages
    float lr, shrink;   // rate of u, 1 - lr weight_decay
};

enum { ROW_U, ROW_W, ROW_SUMS }; // sums of squares of a row, in scratch

static float grad_at(const struct adafactor_args *a, int64_t i) {
    return ((const float *)a->g.data)[i] * (a->grad_scale == 0 ? 1 : a->grad_scale);
}

static void row_means_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct factored *f = arg;
    const int64_t K = f->a->w.cols;
    float *row = f->a->row.data;
    (void)thread;
    for (int64_t r = lo; r < hi; r++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += (double)grad_at(f->a, r * K + k) * (double)grad_at(f->a, r * K + k);
        row[r] += (float)(f->share * (sum / (double)K - (double)row[r]));
    }
}

static void column_means_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct factored *f = arg;
    const int64_t M = f->a->w.rows, K = f->a->w.cols;
    float *column = f->a->column.data;
    (void)thread;
    enum { AT_ONCE = 64 };
    for (int64_t k = lo; k < hi; k += AT_ONCE) {
        double sum[AT_ONCE] = {0};
        const int64_t n = hi - k < AT_ONCE ? hi - k : AT_ONCE;
        for (int64_t r = 0; r < M; r++)
            for (int64_t i = 0; i < n; i++) sum[i] += (double)grad_at(f->a, r * K + k + i) * (double)grad_at(f->a, r * K + k + i);
        for (int64_t i = 0; i < n; i++)
            column[k + i] += (float)(f->share * (sum[i] / (double)M - (double)column[k + i]));
    }
}

// u of one place: the gradient over the root of its factored square.
static float unit_at(const struct factored *f, int64_t r, int64_t k) {
    const struct adafactor_args *a = f->a;
    double square = ((float *)a->column.data)[k];
    if (a->w.rows > 1) square *= (double)((float *)a->row.data)[r] / fmax(f->mean, (double)FLT_EPSILON);
    return (float)((double)grad_at(a, r * a->w.cols + k) / sqrt(fmax(square, (double)FLT_EPSILON * (double)FLT_EPSILON)));
}

static void sizes_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct factored *f = arg;
    const int64_t K = f->a->w.cols;
    const float *w = f->a->w.data;
    (void)thread;
    for (int64_t r = lo; r < hi; r++) {
        double u = 0, size = 0;
        for (int64_t k = 0; k < K; k++) {
            double x = unit_at(f, r, k), y = w[r * K + k];
            u += x * x, size += y * y;
        }
        f->a->scratch[r * ROW_SUMS + ROW_U] = u;
        f->a->scratch[r * ROW_SUMS + ROW_W] = size;
    }
}

static void move_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct factored *f = arg;
    const int64_t K = f->a->w.cols;
    float *w = f->a->w.data;
    uint16_t *copy = f->a->copy.data;
    (void)thread;
    for (int64_t r = lo; r < hi; r++)
        for (int64_t k = 0; k < K; k++) {
            const int64_t i = r * K + k;
            w[i] = w[i] * f->shrink - f->lr * unit_at(f, r, k);
            if (copy) copy[i] = bf16_from_f32(w[i]);
        }
}

static void adafactor(const struct adafactor_args *a) {
    const int64_t M = a->w.rows, K = a->w.cols, grain = 1 + 8192 / K;
    assert(is_flat(&a->w) && fits(&a->g, &a->w) && copy_fits(&a->copy, &a->w) && a->step >= 1 && a->scratch);
    assert(is_flat(&a->column) && a->column.rows == 1 && a->column.cols == K);
    assert(is_flat(&a->row) && a->row.rows == 1 && a->row.cols == M);
    struct factored f = {.a = a, .share = pow((double)a->step, -0.8), .shrink = 1 - a->lr * a->weight_decay};
    const float *row = a->row.data;
    if (M > 1) pool_for(M, grain, row_means_piece, &f);
    pool_for(K, 64, column_means_piece, &f);
    for (int64_t r = 0; r < M; r++) f.mean += row[r] / (double)M;
    pool_for(M, grain, sizes_piece, &f);
    double u = 0, size = 0, count = (double)M * (double)K;
    for (int64_t r = 0; r < M; r++) u += a->scratch[r * ROW_SUMS + ROW_U], size += a->scratch[r * ROW_SUMS + ROW_W];
    double rate = fmin((double)a->lr, 1 / sqrt((double)a->step)) * fmax(1e-3, sqrt(size / count));
    f.lr = (float)(rate / fmax(1, sqrt(u / count)));
    pool_for(M, grain, move_piece, &f);
}

void cpu_fill_updates(struct backend *b) {
    b->update = plain_update;
    b->adafactor = adafactor;
}
