// ref_model.c: see ref_model.h. Slow on purpose: nothing is shared, fused or reordered.
#include "tests/ref_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ref_model *ref_new(const struct model *m) {
    struct ref_model *r = calloc(1, sizeof *r);
    r->config = m->config;
    r->n_params = m->n_params;
    r->w = calloc((size_t)m->n_params, sizeof *r->w);
    for (int i = 0; i < m->n_params; i++) {
        int64_t n = m->params[i].rows * m->params[i].cols;
        r->w[i] = malloc((size_t)n * sizeof(double));
        for (int64_t k = 0; k < n; k++) r->w[i][k] = (double)((const float *)m->params[i].w.data)[k];
    }
    return r;
}

void ref_free(struct ref_model *r) {
    for (int i = 0; i < r->n_params; i++) free(r->w[i]);
    free(r->w);
    free(r);
}

// out[M] = w[M,K] x[K]
static void times(const double *w, const double *x, int64_t M, int64_t K, double *out) {
    for (int64_t i = 0; i < M; i++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += w[i * K + k] * x[k];
        out[i] = sum;
    }
}

static void normed(const double *x, const double *gain, int64_t C, double eps, double *out) {
    double squares = 0;
    for (int64_t i = 0; i < C; i++) squares += x[i] * x[i];
    for (int64_t i = 0; i < C; i++) out[i] = x[i] / sqrt(squares / (double)C + eps) * gain[i];
}

// Neighbouring pairs of each head turn by t * base^(-2j/D).
static void turned(double *x, int64_t heads, int64_t D, int64_t t, double base) {
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t j = 0; j < D / 2; j++) {
            double angle = (double)t * pow(base, -2.0 * (double)j / (double)D);
            double a = x[h * D + 2 * j], b = x[h * D + 2 * j + 1];
            x[h * D + 2 * j] = a * cos(angle) - b * sin(angle);
            x[h * D + 2 * j + 1] = a * sin(angle) + b * cos(angle);
        }
    }
}

// One head of one row: softmax(scale q.k) v over rows from .. t. Row j of k and v lies at j * stride.
static void attended(const double *q, const double *k, const double *v, int64_t stride, int64_t D, int64_t from,
                     int64_t t, double scale, double *out) {
    double top = -INFINITY, total = 0;
    double *p = malloc((size_t)(t + 1) * sizeof *p);
    for (int64_t j = from; j <= t; j++) {
        p[j] = 0;
        for (int64_t d = 0; d < D; d++) p[j] += scale * q[d] * k[j * stride + d];
        if (p[j] > top) top = p[j];
    }
    for (int64_t j = from; j <= t; j++) total += p[j] = exp(p[j] - top);
    for (int64_t d = 0; d < D; d++) {
        out[d] = 0;
        for (int64_t j = from; j <= t; j++) out[d] += p[j] / total * v[j * stride + d];
    }
    free(p);
}

void ref_logits(const struct ref_model *r, const int32_t *ids, const int32_t *doc_start, int64_t T, double *logits) {
    const struct model_config *c = &r->config;
    int64_t C = c->C, Q = c->H * c->D, K = c->G * c->D, F = c->F, share = c->H / c->G;
    double eps = (double)c->norm_eps, m_res = (double)c->m_res;
    double *x = malloc((size_t)(T * C) * sizeof *x), *n = malloc((size_t)C * sizeof *n);
    double *q = malloc((size_t)(T * Q) * sizeof *q), *a = malloc((size_t)Q * sizeof *a);
    double *k = malloc((size_t)(T * K) * sizeof *k), *v = malloc((size_t)(T * K) * sizeof *v);
    double *gate = malloc((size_t)F * sizeof *gate), *up = malloc((size_t)F * sizeof *up);
    double *branch = malloc((size_t)C * sizeof *branch);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < C; i++) x[t * C + i] = (double)c->m_emb * r->w[0][ids[t] * C + i];
    for (int64_t l = 0; l < c->L; l++) {
        double **w = r->w + 1 + 9 * l; // attn_norm q k v o ffn_norm gate up down
        for (int64_t t = 0; t < T; t++) {
            normed(x + t * C, w[0], C, eps, n);
            times(w[1], n, Q, C, q + t * Q);
            times(w[2], n, K, C, k + t * K);
            times(w[3], n, K, C, v + t * K);
            turned(q + t * Q, c->H, c->D, t, (double)c->rope_base);
            turned(k + t * K, c->G, c->D, t, (double)c->rope_base);
        }
        for (int64_t t = 0; t < T; t++) {
            for (int64_t h = 0; h < c->H; h++) {
                int64_t g = h / share;
                attended(q + t * Q + h * c->D, k + g * c->D, v + g * c->D, K, c->D, doc_start ? doc_start[t] : 0, t,
                         (double)c->m_attn, a + h * c->D);
            }
            times(w[4], a, C, Q, branch);
            for (int64_t i = 0; i < C; i++) x[t * C + i] += m_res * branch[i];
            normed(x + t * C, w[5], C, eps, n);
            times(w[6], n, F, C, gate);
            times(w[7], n, F, C, up);
            for (int64_t i = 0; i < F; i++) up[i] *= gate[i] / (1 + exp(-gate[i]));
            times(w[8], up, C, F, branch);
            for (int64_t i = 0; i < C; i++) x[t * C + i] += m_res * branch[i];
        }
    }
    double **last = r->w + 1 + 9 * c->L;
    for (int64_t t = 0; t < T; t++) {
        normed(x + t * C, last[0], C, eps, n);
        times(c->tied ? r->w[0] : last[1], n, c->V, C, logits + t * c->V);
        for (int64_t i = 0; i < c->V; i++) logits[t * c->V + i] /= (double)c->logit_divisor;
    }
    double *all[] = {x, n, q, a, k, v, gate, up, branch};
    for (size_t i = 0; i < COUNT_OF(all); i++) free(all[i]);
}

double ref_loss(const struct ref_model *r, const int32_t *ids, const int32_t *targets, const int32_t *doc_start,
                int64_t rows, int64_t T) {
    int64_t V = r->config.V;
    double sum = 0, *logits = malloc((size_t)(T * V) * sizeof *logits);
    int32_t *start = malloc((size_t)T * sizeof *start);
    for (int64_t s = 0; s < rows; s += T) {
        for (int64_t t = 0; t < T; t++) start[t] = doc_start ? (int32_t)(doc_start[s + t] - s) : 0;
        ref_logits(r, ids + s, start, T, logits);
        for (int64_t t = 0; t < T; t++) {
            if (targets[s + t] < 0) continue;
            double total = 0;
            for (int64_t i = 0; i < V; i++) total += exp(logits[t * V + i]);
            sum += log(total) - logits[t * V + targets[s + t]];
        }
    }
    free(start);
    free(logits);
    return sum;
}
