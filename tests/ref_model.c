// ref_model.c: see ref_model.h. Slow on purpose: nothing is shared, fused or reordered.
#include "tests/ref_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t count_of(const struct param *p) { return p->mats * p->rows * p->cols; }
static float *fetch(const struct model *m, int i, const void *from) {
    const size_t bytes = (size_t)count_of(&m->params[i]) * sizeof(float);
    float *to = malloc(bytes);
    m->backend->download(to, from, bytes);
    return to;
}
float *fetch_weights(const struct model *m, int i) { return fetch(m, i, m->params[i].w.data); }
float *fetch_gradient(const struct model *m, int i) { return fetch(m, i, m->params[i].grad.data); }
void send_weights(struct model *m, int i, const float *w) {
    m->backend->upload(m->params[i].w.data, w, (size_t)count_of(&m->params[i]) * sizeof *w);
}

struct ref_model *ref_new(const struct model *m) {
    struct ref_model *r = calloc(1, sizeof *r);
    r->config = m->config;
    r->n_params = m->n_params;
    r->layers = m->layers;
    r->out_norm = m->out_norm, r->head = m->head;
    r->w = calloc((size_t)m->n_params, sizeof *r->w);
    for (int i = 0; i < m->n_params; i++) {
        const int64_t n = count_of(&m->params[i]);
        float *w = fetch_weights(m, i);
        r->w[i] = malloc((size_t)n * sizeof(double));
        for (int64_t k = 0; k < n; k++) r->w[i][k] = (double)w[k];
        free(w);
    }
    r->use = calloc((size_t)(r->config.L * r->config.E) + 1, sizeof *r->use);
    return r;
}

void ref_free(struct ref_model *r) {
    for (int i = 0; i < r->n_params; i++) free(r->w[i]);
    free(r->w);
    free(r->use);
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

// Pairs of each head, neighbours or apart by half of it, turn by t * base^(-2j/D).
static void turned(double *x, int64_t heads, int64_t D, int64_t t, double base, bool halves) {
    int64_t step = halves ? 1 : 2, apart = halves ? D / 2 : 1;
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t j = 0; j < D / 2; j++) {
            double angle = (double)t * pow(base, -2.0 * (double)j / (double)D);
            double *first = &x[h * D + step * j], *second = first + apart, a = *first, b = *second;
            *first = a * cos(angle) - b * sin(angle);
            *second = a * sin(angle) + b * cos(angle);
        }
    }
}

// One head of one row: softmax(scale q.k) v over rows from .. t. Row j of k and v lies at j * stride.
static void attended(const double *q, const double *k, const double *v, int64_t stride, int64_t D, int64_t from,
                     int64_t t, double scale, const struct dropout *drop, double *out) {
    double top = -INFINITY, total = 0;
    double *p = malloc((size_t)(t + 1) * sizeof *p);
    for (int64_t j = from; j <= t; j++) {
        p[j] = 0;
        for (int64_t d = 0; d < D; d++) p[j] += scale * q[d] * k[j * stride + d];
        if (p[j] > top) top = p[j];
    }
    for (int64_t j = from; j <= t; j++) total += p[j] = exp(p[j] - top);
    const struct rng_row row = rng_row(drop->seed, drop->place, (uint64_t)(drop->row + t));
    for (int64_t j = from; j <= t && drop->below > 0; j++)
        p[j] = rng_row_at(row, (uint32_t)(j - from)) < drop->below ? 0 : p[j] / (1 - drop->below / 65536.0);
    for (int64_t d = 0; d < D; d++) {
        out[d] = 0;
        for (int64_t j = from; j <= t; j++) out[d] += p[j] / total * v[j * stride + d];
    }
    free(p);
}

// Each head by itself, or all as one.
static void heads_normed(double *x, const double *gain, int64_t heads, int64_t D, bool wide, double eps) {
    if (wide) D *= heads, heads = 1;
    for (int64_t h = 0; h < heads; h++) normed(x + h * D, gain, D, eps, x + h * D);
}

static void unit(const double *gate, const double *up, const double *down, const double *n, int64_t F, int64_t C, double *out) {
    double *g = malloc((size_t)F * sizeof *g), *u = malloc((size_t)F * sizeof *u);
    times(gate, n, F, C, g);
    times(up, n, F, C, u);
    for (int64_t i = 0; i < F; i++) u[i] *= g[i] / (1 + exp(-g[i]));
    times(down, u, C, F, out);
    free(g), free(u);
}

// The router of one row: probabilities p, whether an expert is chosen, and log-sum-exp of its logits.
static double routed(const struct model_config *c, const double *router, const double *n, double *p, bool *chosen) {
    double total = 0;
    times(router, n, c->E, c->C, p);
    for (int64_t e = 0; e < c->E; e++) {
        int64_t before = 0;
        for (int64_t o = 0; o < c->E; o++) before += p[o] > p[e];
        chosen[e] = before < c->used;
        total += exp(p[e]);
    }
    for (int64_t e = 0; e < c->E; e++) p[e] = exp(p[e]) / total;
    return log(total);
}

// What is left of branch `what` (0: the embedding) of layer l.
static void dropped(const struct dropout *d, int64_t l, int what, int64_t t, int64_t C, double *x) {
    if (d->below == 0) return;
    const struct rng_row row = rng_row(d->seed, 0x64726f7000000000u + (uint64_t)(4 * l + what) * 65536, (uint64_t)(d->row + t));
    for (int64_t i = 0; i < C; i++) x[i] = rng_row_at(row, (uint32_t)i) < d->below ? 0 : x[i] / (1 - d->below / 65536.0);
}

// Experts of the rows of a sequence. P [T,E] and count [E] are for the balance.
struct mixture {
    double *P, *count, lse;
};
static void experts(const struct ref_model *r, int64_t l, const double *n, int64_t t, struct mixture *x, double *out) {
    const struct model_config *c = &r->config;
    const struct layer *w = &r->layers[l];
    int64_t C = c->C, F = c->F;
    bool chosen[64];
    double *p = x->P + t * c->E, kept = 0, *part = malloc((size_t)C * sizeof *part);
    double lse = routed(c, r->w[w->router], n, p, chosen);
    x->lse += lse * lse;
    for (int64_t e = 0; e < c->E; e++) kept += chosen[e] ? p[e] : 0;
    for (int64_t i = 0; i < C; i++) out[i] = 0;
    for (int64_t e = 0; e < c->E; e++) {
        if (!chosen[e]) continue;
        x->count[e]++;
        unit(r->w[w->gate_exps] + e * F * C, r->w[w->up_exps] + e * F * C, r->w[w->down_exps] + e * F * C, n, F, C, part);
        for (int64_t i = 0; i < C; i++) out[i] += p[e] / (c->family->renormalize ? kept : 1) * part[i];
    }
    free(part);
}

static double aside_of(const struct ref_model *r, int64_t l, int64_t T, const struct mixture *x) {
    const struct model_config *c = &r->config;
    double sum = r->aim.router_z * x->lse, *use = r->use + l * c->E, so_far = 0;
    for (int64_t e = 0; e < c->E; e++) so_far += use[e] += x->count[e];
    for (int64_t e = 0; e < c->E && r->aim.balance != BALANCE_NONE; e++) {
        double share = r->aim.balance == BALANCE_GLOBAL ? use[e] / so_far : x->count[e] / (double)(T * c->used);
        for (int64_t t = 0; t < T; t++) sum += r->aim.balance_coef * (double)c->E * share * x->P[t * c->E + e];
    }
    return sum;
}

void ref_logits(const struct ref_model *r, const int32_t *ids, const int32_t *doc_start, int64_t T, double *logits,
                double *aside) {
    const struct model_config *c = &r->config;
    int64_t C = c->C, Q = c->H * c->D, K = c->G * c->D, share = c->H / c->G;
    double eps = (double)c->norm_eps, m_res = (double)c->m_res, base = (double)c->rope_base;
    bool halves = c->family->pairs == ROPE_HALVES, wide = c->family->wide_qk_norm;
    double *x = malloc((size_t)(T * C) * sizeof *x), *n = malloc((size_t)C * sizeof *n);
    double *q = malloc((size_t)(T * Q) * sizeof *q), *a = malloc((size_t)Q * sizeof *a);
    double *k = malloc((size_t)(T * K) * sizeof *k), *v = malloc((size_t)(T * K) * sizeof *v);
    double *branch = malloc((size_t)C * sizeof *branch);
    if (aside) *aside = 0;
    for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < C; i++) x[t * C + i] = (double)c->m_emb * r->w[0][ids[t] * C + i];
        dropped(&r->drop, 0, 0, t, C, x + t * C);
    }
    for (int64_t l = 0; l < c->L; l++) {
        const struct layer *w = &r->layers[l];
        struct mixture mixed = {calloc((size_t)(T * c->E + 1), sizeof(double)), calloc((size_t)c->E + 1, sizeof(double)), 0};
        for (int64_t t = 0; t < T; t++) {
            normed(x + t * C, r->w[w->attn_norm], C, eps, n);
            times(r->w[w->q], n, Q, C, q + t * Q);
            times(r->w[w->k], n, K, C, k + t * K);
            times(r->w[w->v], n, K, C, v + t * K);
            if (w->q_norm >= 0) heads_normed(q + t * Q, r->w[w->q_norm], c->H, c->D, wide, eps);
            if (w->k_norm >= 0) heads_normed(k + t * K, r->w[w->k_norm], c->G, c->D, wide, eps);
            turned(q + t * Q, c->H, c->D, t, base, halves);
            turned(k + t * K, c->G, c->D, t, base, halves);
        }
        for (int64_t t = 0; t < T; t++) {
            for (int64_t h = 0; h < c->H; h++) {
                int64_t g = h / share;
                struct dropout drop = r->drop;
                drop.place = 0x64726f7000000000u + (uint64_t)(4 * l + 1) * 65536 + (uint64_t)h;
                attended(q + t * Q + h * c->D, k + g * c->D, v + g * c->D, K, c->D, doc_start ? doc_start[t] : 0, t,
                         (double)c->m_attn, &drop, a + h * c->D);
            }
            times(r->w[w->o], a, C, Q, branch);
            dropped(&r->drop, l, 2, t, C, branch);
            for (int64_t i = 0; i < C; i++) x[t * C + i] += m_res * branch[i];
            normed(x + t * C, r->w[w->ffn_norm], C, eps, n);
            if (w->router >= 0) experts(r, l, n, t, &mixed, branch);
            else unit(r->w[w->gate], r->w[w->up], r->w[w->down], n, c->F, C, branch);
            dropped(&r->drop, l, 3, t, C, branch);
            for (int64_t i = 0; i < C; i++) x[t * C + i] += m_res * branch[i];
        }
        if (aside) *aside += aside_of(r, l, T, &mixed);
        free(mixed.P), free(mixed.count);
    }
    for (int64_t t = 0; t < T; t++) {
        normed(x + t * C, r->w[r->out_norm], C, eps, n);
        times(r->w[r->head], n, c->V, C, logits + t * c->V);
        for (int64_t i = 0; i < c->V; i++) logits[t * c->V + i] /= (double)c->logit_divisor;
    }
    double *all[] = {x, n, q, a, k, v, branch};
    for (size_t i = 0; i < COUNT_OF(all); i++) free(all[i]);
}

double ref_loss(const struct ref_model *r, const int32_t *ids, const int32_t *targets, const int32_t *doc_start,
                int64_t rows, int64_t T) {
    int64_t V = r->config.V;
    double sum = 0, aside, *logits = malloc((size_t)(T * V) * sizeof *logits);
    int32_t *start = malloc((size_t)T * sizeof *start);
    for (int64_t k = 0; k < r->config.L * r->config.E; k++) r->use[k] = 0;
    for (int64_t s = 0; s < rows; s += T) {
        for (int64_t t = 0; t < T; t++) start[t] = doc_start ? (int32_t)(doc_start[s + t] - s) : 0;
        struct ref_model here = *r;
        here.drop.row += s;
        ref_logits(&here, ids + s, start, T, logits, &aside);
        sum += aside;
        for (int64_t t = 0; t < T; t++) {
            if (targets[s + t] < 0) continue;
            double total = 0;
            for (int64_t i = 0; i < V; i++) total += exp(logits[t * V + i]);
            sum += log(total) - logits[t * V + targets[s + t]] + r->aim.head_z * log(total) * log(total);
        }
    }
    free(start);
    free(logits);
    return sum;
}
