// ops_families.c: what the ops mean that only some families of models need, in plain C, as ops.c does for the rest.
//
// LayerNorm and learned biases (GPT-2), capped numbers (Gemma 2), attention sinks (gpt-oss). Experts are in experts.c.
#include "cpu/cpu.h"

#include <math.h>

static float *row_f32(const struct tensor *t, int64_t i) {
    return (float *)(void *)((char *)t->data + (size_t)i * t->row_bytes);
}
static bool is_f32(const struct tensor *t) {
    return t->dtype == DTYPE_F32 && t->layout == LAYOUT_ROWS && t->mats == 1;
}
static bool same_shape(const struct tensor *a, const struct tensor *b) {
    return a->rows == b->rows && a->cols == b->cols;
}
static int64_t grain_of_rows(int64_t cols) { return cols >= 8192 ? 1 : 8192 / (cols > 0 ? cols : 1); }

// ---------------------------------------------------------------------------------------------------------------
// LayerNorm, in double as its sums stand alone.

static void layernorm_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct layernorm_args *a = arg;
    (void)thread;
    const int64_t C = a->x.cols;
    const float *w = tensor_present(&a->weight) ? row_f32(&a->weight, 0) : NULL;
    const float *bias = tensor_present(&a->bias) ? row_f32(&a->bias, 0) : NULL;
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&a->x, i);
        float *out = row_f32(&a->out, i);
        double sum = 0, squares = 0;
        for (int64_t c = 0; c < C; c++) sum += x[c];
        const double mean = sum / (double)C;
        for (int64_t c = 0; c < C; c++) squares += (x[c] - mean) * (x[c] - mean);
        const double r = 1 / sqrt(squares / (double)C + a->eps);
        for (int64_t c = 0; c < C; c++)
            out[c] = (float)((x[c] - mean) * r) * (w ? w[c] : 1) + (bias ? bias[c] : 0);
    }
}

static void plain_layernorm(const struct layernorm_args *a) {
    assert(is_f32(&a->out) && is_f32(&a->x) && same_shape(&a->out, &a->x));
    assert(!tensor_present(&a->weight) || (is_f32(&a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols));
    assert(!tensor_present(&a->bias) || (is_f32(&a->bias) && a->bias.rows == 1 && a->bias.cols == a->x.cols));
    pool_for(a->x.rows, grain_of_rows(a->x.cols), layernorm_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Element by element.

static void bias_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct bias_args *a = arg;
    (void)thread;
    const float *bias = row_f32(&a->bias, 0), scale = a->scale == 0 ? 1 : a->scale;
    for (int64_t i = lo; i < hi; i++) {
        float *x = row_f32(&a->x, i);
        for (int64_t c = 0; c < a->x.cols; c++) x[c] += scale * bias[c];
    }
}

void cpu_bias(const struct bias_args *a) {
    assert(is_f32(&a->x) && is_f32(&a->bias) && a->bias.rows == 1 && a->bias.cols == a->x.cols);
    pool_for(a->x.rows, grain_of_rows(a->x.cols), bias_piece, (void *)a);
}

static void softcap_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct softcap_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float *x = row_f32(&a->x, i);
        for (int64_t c = 0; c < a->x.cols; c++) x[c] = a->cap * tanhf(x[c] / a->cap);
    }
}

static void plain_softcap(const struct softcap_args *a) {
    assert(is_f32(&a->x) && a->cap > 0);
    pool_for(a->x.rows, grain_of_rows(8 * a->x.cols), softcap_piece, (void *)a);
}

static void clamp_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct clamp_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float *x = row_f32(&a->x, i);
        for (int64_t c = 0; c < a->x.cols; c++)
            x[c] = x[c] > a->limit ? a->limit : x[c] < -a->limit ? -a->limit : x[c];
    }
}

static void plain_clamp(const struct clamp_args *a) {
    assert(is_f32(&a->x) && a->limit > 0);
    pool_for(a->x.rows, grain_of_rows(a->x.cols), clamp_piece, (void *)a);
}

static void sink_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct sink_args *a = arg;
    (void)thread;
    const int64_t H = a->sinks.cols, D = a->x.cols / H;
    const float *sinks = row_f32(&a->sinks, 0);
    for (int64_t i = lo; i < hi; i++) {
        float *x = row_f32(&a->x, i);
        for (int64_t h = 0; h < H; h++) {
            const float share = (float)(1 / (1 + exp((double)sinks[h] - (double)a->lse[i * H + h])));
            for (int64_t d = 0; d < D; d++) x[h * D + d] *= share;
        }
    }
}

static void plain_sink(const struct sink_args *a) {
    assert(is_f32(&a->x) && is_f32(&a->sinks) && a->sinks.rows == 1 && a->lse && a->x.cols % a->sinks.cols == 0);
    pool_for(a->x.rows, grain_of_rows(a->x.cols), sink_piece, (void *)a);
}

// ---------------------------------------------------------------------------------------------------------------
// Gates of few families. No level has faster ones: beside the products of a layer they are small.

static float held(float x, float least, float most) { return x > most ? most : x < least ? least : x; }

static float rare_gate(enum glu_kind kind, float gate, float up) {
    double x = (double)gate;
    switch (kind) {
    case GLU_GELU_ERF: return (float)(.5 * x * erfc(-x * 0.70710678118654752440)) * up;
    case GLU_RELU2: return (gate <= 0 ? 0 : gate * gate) * up; // NaN stays
    case GLU_SIGMOID: return (float)(1 / (1 + exp(-x))) * up;
    default: // CLAMPED
        x = (double)held(gate, -INFINITY, 7);
        return (float)(x / (1 + exp(-1.702 * x))) * (held(up, -7, 7) + 1);
    }
}

static void rare_glu_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct glu_args *a = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *gate = row_f32(&a->gate, i);
        const float *up = tensor_present(&a->up) ? row_f32(&a->up, i) : NULL;
        float *out = row_f32(&a->out, i);
        for (int64_t c = 0; c < a->out.cols; c++) out[c] = rare_gate(a->kind, gate[c], up ? up[c] : 1);
    }
}

void cpu_rare_glu(const struct glu_args *a) {
    assert(a->kind > GLU_GELU && a->kind <= GLU_CLAMPED && (a->kind != GLU_CLAMPED || tensor_present(&a->up)));
    pool_for(a->out.rows, grain_of_rows(16 * a->out.cols), rare_glu_piece, (void *)a);
}

void cpu_fill_families(struct backend *b) {
    b->layernorm = plain_layernorm;
    b->bias = cpu_bias;
    b->softcap = plain_softcap;
    b->clamp = plain_clamp;
    b->sink = plain_sink;
}
