// experts.c: a mixture of experts, forward and backward, in plain C and on top of a level's own products.
//
// A row chooses `used` of E experts by its own logits, ties going to the lower number, so no row sees its batch; there is no
// capacity, so no row is dropped. Then the pairs (row, chosen expert) are sorted by expert, once a layer (group): what
// follows reads and writes whole runs of rows, one run an expert, and nothing has to be brought back into order until the
// parts of a row are added up (mix), which looks them up.
//
// A product of experts is the level's own product of each run, so its sums are those of matmul and a row's result does not
// depend on how many rows its expert has. A weight's gradient is one sum per segment of rows, in order, as in matmul_dw;
// the terms of a segment are those of its rows that chose the expert. So neither micro-batches nor threads show.
//
// Routing in double: it is small beside the products, and a choice depends on it.
#include "cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { EXPERTS_MAX = 1024, FEW_ROWS = 8 };

static float *row_f32(const struct tensor *t, int64_t i) {
    return (float *)(void *)((char *)t->data + (size_t)i * t->row_bytes);
}
static bool is_f32(const struct tensor *t) {
    return t->dtype == DTYPE_F32 && t->layout == LAYOUT_ROWS && t->mats == 1;
}
static int64_t grain_of_rows(int64_t cols) { return cols >= 8192 ? 1 : 8192 / (cols > 0 ? cols : 1); }

// ---------------------------------------------------------------------------------------------------------------
// Routing.

// e[j] = exp(z[j] - max z); their sum, and the maximum. A NaN among the logits makes the sum NaN.
static double exps(const float *z, int64_t E, double *e, double *most) {
    double sum = 0;
    *most = -INFINITY;
    for (int64_t j = 0; j < E; j++) *most = fmax(*most, z[j]);
    for (int64_t j = 0; j < E; j++) sum += e[j] = exp(z[j] - *most);
    return sum;
}

// The next expert of the row: the largest logit not yet taken. A NaN is never larger, so the search starts from the
// first free one; its weight carries the NaN on.
static int32_t next_expert(const float *logits, int64_t experts, const bool *taken) {
    int32_t best = -1;
    for (int64_t e = 0; e < experts; e++)
        if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = (int32_t)e;
    return best;
}

static void route_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct route_args *a = arg;
    (void)thread;
    const int64_t E = a->logits.cols;
    for (int64_t i = lo; i < hi; i++) {
        const float *logits = row_f32(&a->logits, i);
        int32_t *chosen = a->chosen + i * a->used;
        float *weight = a->weight + i * a->used;
        bool taken[EXPERTS_MAX];
        double e[EXPERTS_MAX], most, sum = exps(logits, E, e, &most), kept = 0;
        memset(taken, 0, (size_t)E * sizeof *taken);
        for (int64_t k = 0; k < a->used; k++) {
            chosen[k] = next_expert(logits, E, taken);
            taken[chosen[k]] = true;
            kept += e[chosen[k]];
        }
        for (int64_t k = 0; k < a->used; k++) weight[k] = (float)(e[chosen[k]] / (a->renormalize ? kept : sum));
        if (isnan(sum))
            for (int64_t k = 0; k < a->used; k++) weight[k] = NAN;
    }
}

static void plain_route(const struct route_args *a) {
    assert(is_f32(&a->logits) && a->used >= 1 && a->used <= a->logits.cols && a->logits.cols <= EXPERTS_MAX);
    pool_for(a->logits.rows, 16, route_piece, (void *)a);
}

static double dot(const float *x, const float *y, int64_t n) {
    double sum[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) sum[l] += (double)x[i + l] * (double)y[i + l];
    for (; i < n; i++) sum[0] += (double)x[i] * (double)y[i];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static void route_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct route_back_args *a = arg;
    (void)thread;
    const int64_t E = a->logits.cols, n = a->logits.rows, rows_each = n / (a->balance.rows > 0 ? a->balance.rows : 1);
    for (int64_t i = lo; i < hi; i++) {
        const int32_t *chosen = a->chosen + i * a->used;
        const float *b = tensor_present(&a->balance) ? row_f32(&a->balance, i / rows_each) : NULL;
        float *to = row_f32(&a->dlogits, i);
        double p[EXPERTS_MAX], own[EXPERTS_MAX], most, all = exps(row_f32(&a->logits, i), E, p, &most), sum = 0, mean = 0;
        memset(own, 0, (size_t)E * sizeof *own);
        for (int64_t k = 0; k < a->used; k++) {
            const int64_t q = a->place[i * a->used + k];
            own[chosen[k]] = dot(row_f32(&a->x, q), row_f32(&a->dx, q), a->x.cols);
            sum += own[chosen[k]];
        }
        for (int64_t k = 0; a->renormalize && k < a->used; k++)
            own[chosen[k]] -= (double)a->weight[i * a->used + k] * sum;
        for (int64_t e = 0; e < E; e++) {
            p[e] /= all;
            if (b) mean += (double)b[e] * p[e];
        }
        const double size = most + log(all), z = 2 * (double)a->z_loss * size;
        for (int64_t e = 0; e < E; e++)
            to[e] = (float)(own[e] + p[e] * ((b ? (double)b[e] : 0) - mean + z - (a->renormalize ? 0 : sum)));
        a->other[i] = (float)(mean + (double)a->z_loss * size * size);
    }
}

static void plain_route_back(const struct route_back_args *a) {
    assert(is_f32(&a->dlogits) && is_f32(&a->logits) && a->logits.cols <= EXPERTS_MAX && a->logits.cols == a->dlogits.cols);
    assert(is_f32(&a->x) && is_f32(&a->dx) && a->x.rows == a->logits.rows * a->used && a->x.cols == a->dx.cols);
    assert(!tensor_present(&a->balance) || (is_f32(&a->balance) && a->logits.rows % a->balance.rows == 0));
    pool_for(a->logits.rows, 16, route_back_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Sorting. By one thread: a pair takes some nanoseconds, its products microseconds.

static void plain_group(const struct group_args *a) {
    const int64_t pairs = a->rows * a->used, S = a->rows / a->segment, E = a->experts;
    int32_t next[EXPERTS_MAX];
    assert(a->segment > 0 && a->rows % a->segment == 0 && E >= 1 && E <= EXPERTS_MAX);
    memset(a->start, 0, (size_t)(E * S + 1) * sizeof *a->start);
    for (int64_t p = 0; p < pairs; p++) {
        assert(a->chosen[p] >= 0 && a->chosen[p] < E);
        a->start[a->chosen[p] * S + p / a->used / a->segment + 1]++;
    }
    for (int64_t i = 0; i < E * S; i++) a->start[i + 1] += a->start[i];
    for (int64_t e = 0; e < E; e++) next[e] = a->start[e * S];
    for (int64_t p = 0; p < pairs; p++) {
        const int32_t q = next[a->chosen[p]]++;
        a->place[p] = q, a->row[q] = (int32_t)(p / a->used), a->expert[q] = a->chosen[p];
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Products. Weights that lie as DEVICE or in blocks are multiplied FEW_ROWS rows at a time: so many the product of a level
// takes without scratch of its own, which would grow when an expert has more rows than ever before.

void cpu_matmul_experts(const struct matmul_experts_args *a, void (*matmul)(const struct matmul_args *a)) {
    const int64_t S = a->segments;
    assert(is_f32(&a->out) && is_f32(&a->x) && a->out.rows == a->x.rows && a->start[a->experts * S] == a->x.rows);
    for (int64_t e = 0; e < a->experts; e++) {
        const struct tensor *w = &a->w[e];
        const int64_t end = a->start[(e + 1) * S];
        const bool plain = w->layout == LAYOUT_ROWS && dtype_row(w->dtype)->block_weights == 1;
        for (int64_t at = a->start[e * S], n; at < end; at += n) {
            n = plain || end - at < FEW_ROWS ? end - at : FEW_ROWS;
            matmul(&(struct matmul_args){tensor_rows(a->out, at, n), tensor_rows(a->x, at, n), *w, 1, false, a->precision});
        }
    }
}

void cpu_matmul_experts_dx(const struct matmul_experts_dx_args *a, void (*matmul_dx)(const struct matmul_dx_args *a)) {
    const int64_t S = a->segments;
    assert(is_f32(&a->dx) && is_f32(&a->dout) && a->dx.rows == a->dout.rows && a->start[a->experts * S] == a->dx.rows);
    for (int64_t e = 0; e < a->experts; e++) {
        const int64_t at = a->start[e * S], n = a->start[(e + 1) * S] - at;
        if (n > 0)
            matmul_dx(&(struct matmul_dx_args){tensor_rows(a->dx, at, n), tensor_rows(a->dout, at, n), a->w[e], 1,
                                               a->accumulate, a->precision});
    }
}

void cpu_matmul_experts_dw(const struct matmul_experts_dw_args *a, void (*matmul_dw)(const struct matmul_dw_args *a)) {
    const int64_t S = a->segments, M = a->dout.cols;
    assert(is_f32(&a->dw) && is_f32(&a->dout) && is_f32(&a->x) && a->dout.rows == a->x.rows);
    assert(a->dw.rows == a->experts * M && a->dw.cols == a->x.cols && a->start[a->experts * S] == a->x.rows);
    for (int64_t e = 0; e < a->experts; e++) {
        struct tensor dw = tensor_rows(a->dw, e * M, M);
        bool fresh = a->fresh;
        for (int64_t s = 0; s < S; s++) {
            const int64_t at = a->start[e * S + s], n = a->start[e * S + s + 1] - at;
            if (n == 0) continue;
            matmul_dw(&(struct matmul_dw_args){dw, tensor_rows(a->dout, at, n), tensor_rows(a->x, at, n), 1, n,
                                               a->precision, fresh});
            fresh = false;
        }
        for (int64_t m = 0; fresh && m < M; m++) memset(row_f32(&dw, m), 0, (size_t)dw.cols * sizeof(float));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Adding up the parts of a row, and its twin.

static void mix_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct mix_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float *out = row_f32(&a->out, i);
        for (int64_t k = 0; k < a->used; k++) {
            const int64_t p = i * a->used + k;
            const float *x = row_f32(&a->x, a->place ? a->place[p] : p), w = a->weight ? a->weight[p] : 1;
            for (int64_t c = 0; c < a->out.cols; c++) out[c] = k ? out[c] + w * x[c] : w * x[c];
        }
    }
}

static void plain_mix(const struct mix_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && a->out.cols == a->x.cols && a->used >= 1);
    assert(a->x.rows == a->out.rows * a->used);
    pool_for(a->out.rows, grain_of_rows(a->out.cols * a->used), mix_piece, (void *)a);
}

static void mix_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct mix_back_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *dout = row_f32(&a->dout, i);
        for (int64_t k = 0; k < a->used; k++) {
            const int64_t p = i * a->used + k;
            const float w = (a->scale == 0 ? 1 : a->scale) * a->weight[p];
            float *dx = row_f32(&a->dx, a->place[p]);
            for (int64_t c = 0; c < a->dout.cols; c++) dx[c] = w * dout[c];
        }
    }
}

static void plain_mix_back(const struct mix_back_args *a) {
    assert(is_f32(&a->dx) && is_f32(&a->dout) && a->dx.cols == a->dout.cols && a->dx.rows == a->dout.rows * a->used);
    pool_for(a->dout.rows, grain_of_rows(a->dout.cols * a->used), mix_back_piece, (void *)a);
}

void cpu_fill_experts(struct backend *b) {
    b->route = plain_route;
    b->route_back = plain_route_back;
    b->group = plain_group;
    b->mix = plain_mix;
    b->mix_back = plain_mix_back;
}
