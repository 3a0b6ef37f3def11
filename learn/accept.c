// accept.c: see accept.h.
//
// Batches of rows go through the blocks and back in plain loops: a row of activations or a row of weights belongs to one
// thread, and sums run over the rows in their order, so threads show in no bit.
#include "learn/accept.h"

#include <math.h>
#include <string.h>

enum { BATCH = 256, EPOCHS_LEAST = 2, EPOCHS_MOST = 6, SURE_BUCKETS = 16 };
static const uint64_t stream_order = 0x61636365u;
static const double REJECTION = 1, RATE = 1.6; // weight of what was not accepted; of a step at its peak, over the width

// --- rows ------------------------------------------------------------------------------------------------------------

void accept_rows_open(struct accept_rows *r, int64_t C, int64_t cap) {
    const size_t n = (size_t)cap;
    *r = (struct accept_rows){.C = C, .cap = cap, .x = mem_array(n, (size_t)C * sizeof *r->x, "places of a draft"),
                              .share = mem_array(n, sizeof *r->share, "places of a draft"), .sure = mem_array(n, sizeof *r->sure, "places of a draft")};
}

void accept_rows_close(struct accept_rows *r) {
    mem_free(r->x);
    mem_free(r->share);
    mem_free(r->sure);
}

static void take_row(void *arg, const float *hidden, double accepted, double sure) {
    struct accept_rows *r = arg;
    if (r->n == r->cap) return;
    memcpy(r->x + r->n * r->C, hidden, (size_t)r->C * sizeof *r->x);
    r->share[r->n] = (float)fmin(accepted, 1);
    r->sure[r->n++] = (float)sure;
}

bool accept_gather(const struct tokens *t, struct session *s, struct accept_rows *r, struct err *err) {
    struct distil_score score;
    return distil_look(t, s, r->cap, &(struct distil_seer){take_row, r}, &score, err);
}

// --- loss and gradient -----------------------------------------------------------------------------------------------

struct accept_work {
    int64_t C;
    int blocks;
    float *x;  // [blocks + 1][BATCH,C] what enters each block, and what leaves the last
    float *z;  // [blocks][BATCH,C]
    float *dx; // [BATCH,C] of what left a block, then of what entered it
    float *dz; // [BATCH,C]
    float dlogit[BATCH];
    double loss[BATCH];
};

struct accept_work *accept_work_new(int64_t C, int blocks) {
    struct accept_work *w = mem_alloc(sizeof *w, "training of an acceptance head");
    const size_t all = (size_t)BATCH * (size_t)C;
    *w = (struct accept_work){.C = C, .blocks = blocks};
    w->x = mem_array(all * (size_t)(blocks + 1), sizeof *w->x, "training of an acceptance head");
    w->z = mem_array(all * (size_t)(blocks + 1), sizeof *w->z, "training of an acceptance head");
    w->dx = mem_array(all, sizeof *w->dx, "training of an acceptance head");
    w->dz = mem_array(all, sizeof *w->dz, "training of an acceptance head");
    return w;
}

void accept_work_free(struct accept_work *w) {
    if (!w) return;
    mem_free(w->x);
    mem_free(w->z);
    mem_free(w->dx);
    mem_free(w->dz);
    mem_free(w);
}

struct batch {
    const struct accept *a;
    const struct accept_rows *rows;
    const int32_t *row; // of rows
    int64_t n, of;      // of: the mean is over so many
    struct accept_work *w;
    float *grad;
    int block;
};

// -ln chance, and -ln of the rest, where a logit is z.
static double minus_log_chance(double z) { return z > 0 ? log1p(exp(-z)) : log1p(exp(z)) - z; }

static void forward_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct batch *b = arg;
    struct accept_work *w = b->w;
    const int64_t C = w->C, layer = BATCH * C;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        memcpy(w->x + i * C, b->rows->x + b->row[i] * C, (size_t)C * sizeof *w->x);
        for (int l = 0; l < w->blocks; l++) accept_block(b->a, l, w->x + l * layer + i * C, w->z + l * layer + i * C, w->x + (l + 1) * layer + i * C);
        const double z = (double)accept_logit(b->a, w->x + w->blocks * layer + i * C), y = (double)b->rows->share[b->row[i]], chance = 1 / (1 + exp(-z));
        w->loss[i] = y * minus_log_chance(z) + REJECTION * (1 - y) * minus_log_chance(-z);
        w->dlogit[i] = (float)((REJECTION * (1 - y) * chance - y * (1 - chance)) / (double)b->of);
    }
}

// dx of what left the block becomes dz, and dx of what entered it.
static void back_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct batch *b = arg;
    struct accept_work *w = b->w;
    const int64_t C = w->C;
    const float *weights = b->a->weights + b->block * C * C, *z = w->z + b->block * BATCH * C;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float *dx = w->dx + i * C, *dz = w->dz + i * C;
        for (int64_t r = 0; r < C; r++) {
            const float t = z[i * C + r], s = 1 / (1 + expf(-t));
            dz[r] = dx[r] * s * (1 + t * (1 - s));
        }
        for (int64_t r = 0; r < C; r++) {
            const float *row = weights + r * C, d = dz[r];
            for (int64_t c = 0; c < C; c++) dx[c] += d * row[c];
        }
    }
}

static void back_weights(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct batch *b = arg;
    const struct accept_work *w = b->w;
    const int64_t C = w->C;
    (void)thread;
    for (int64_t r = lo; r < hi; r++) {
        float *row = b->grad + (b->block * C + r) * C;
        for (int64_t i = 0; i < b->n; i++) {
            const float *x = w->x + (b->block * BATCH + i) * C, d = w->dz[i * C + r];
            for (int64_t c = 0; c < C; c++) row[c] += d * x[c];
        }
    }
}

static void backward(struct batch *b) {
    struct accept_work *w = b->w;
    const int64_t C = w->C, at = w->blocks * C * C;
    const float *last = w->x + w->blocks * BATCH * C, *u = b->a->weights + at;
    float *du = b->grad + at;
    for (int64_t i = 0; i < b->n; i++) {
        for (int64_t c = 0; c < C; c++) du[c] += w->dlogit[i] * last[i * C + c], w->dx[i * C + c] = w->dlogit[i] * u[c];
        du[C] += w->dlogit[i];
    }
    for (b->block = w->blocks - 1; b->block >= 0; b->block--) {
        pool_for(b->n, 4, back_rows, b);
        pool_for(C, 4, back_weights, b);
    }
}

double accept_loss(const struct accept *a, const struct accept_rows *r, const int32_t *row, int64_t n, struct accept_work *w, float *grad) {
    double sum = 0;
    if (grad) memset(grad, 0, accept_count(a->C, a->blocks) * sizeof *grad);
    for (int64_t at = 0; at < n; at += BATCH) {
        struct batch b = {.a = a, .rows = r, .row = row + at, .n = n - at < BATCH ? n - at : BATCH, .of = n, .w = w, .grad = grad};
        pool_for(b.n, 4, forward_rows, &b);
        for (int64_t i = 0; i < b.n; i++) sum += w->loss[i];
        if (grad) backward(&b);
    }
    return n ? sum / (double)n : NAN;
}

// --- learning --------------------------------------------------------------------------------------------------------

struct adam {
    float *m, *v;
    int64_t step;
};

static void adam_step(struct adam *s, float *w, const float *g, size_t n, double rate) {
    const float b1 = 0.9f, b2 = 0.99f, eps = 1e-8f;
    s->step++;
    const float size = (float)(rate * sqrt(1 - pow((double)b2, (double)s->step)) / (1 - pow((double)b1, (double)s->step)));
    for (size_t i = 0; i < n; i++) {
        s->m[i] = b1 * s->m[i] + (1 - b1) * g[i];
        s->v[i] = b2 * s->v[i] + (1 - b2) * g[i] * g[i];
        w[i] -= size * s->m[i] / (sqrtf(s->v[i]) + eps);
    }
}

static double mean_share(const struct accept_rows *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->n; i++) sum += (double)r->share[i];
    return fmin(fmax(sum / (double)r->n, 1e-3), 1 - 1e-3);
}

static double entropy_of(double y, double chance) { // cross entropy
    return -(y > 0 ? y * log(chance) : 0) - (y < 1 ? (1 - y) * log(1 - chance) : 0);
}

static int sure_bucket(float sure) { return sure >= 1 ? SURE_BUCKETS - 1 : (int)(sure * SURE_BUCKETS); }

// What the others come to: one chance for all, and one for each bucket of how sure the draft is.
static void rate_others(const struct accept_rows *train, const struct accept_rows *held_out, struct accept_result *result) {
    double n[SURE_BUCKETS], sum[SURE_BUCKETS];
    const double mean = mean_share(train);
    for (int k = 0; k < SURE_BUCKETS; k++) n[k] = 4, sum[k] = 4 * mean;
    for (int64_t i = 0; i < train->n; i++) n[sure_bucket(train->sure[i])] += 1, sum[sure_bucket(train->sure[i])] += (double)train->share[i];
    for (int64_t i = 0; i < held_out->n; i++) {
        const double y = (double)held_out->share[i];
        const int k = sure_bucket(held_out->sure[i]);
        result->constant += entropy_of(y, mean) / (double)held_out->n;
        result->sure += entropy_of(y, fmin(fmax(sum[k] / n[k], 1e-6), 1 - 1e-6)) / (double)held_out->n;
        result->floor += entropy_of(y, fmin(fmax(y, 1e-9), 1 - 1e-9)) / (double)held_out->n;
    }
}

static double mean_square(const struct accept_rows *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->n * r->C; i++) sum += (double)r->x[i] * (double)r->x[i];
    return sum / (double)(r->n * r->C);
}

static int32_t *numbers(int64_t n) {
    int32_t *row = mem_array((size_t)n + 1, sizeof *row, "order of rows");
    for (int64_t i = 0; i < n; i++) row[i] = (int32_t)i;
    return row;
}

static void shuffle(int32_t *row, int64_t n, uint64_t epoch) {
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t k = (int64_t)rng_below(stream_order, epoch, (uint64_t)i, (uint64_t)i + 1);
        const int32_t x = row[i];
        row[i] = row[k], row[k] = x;
    }
}

// More places beat more epochs: with 60k places of a draft of SmolLM2-135M twice 0.552 nats were left, with 112k twice 0.546, with
// 28k six times 0.558 (the draft's own confidence: 0.554).
static int64_t epochs_of(int64_t n) {
    enum { SHOWN = 1 << 18 };
    const int64_t k = SHOWN / n;
    return k < EPOCHS_LEAST ? EPOCHS_LEAST : k > EPOCHS_MOST ? EPOCHS_MOST : k;
}

struct accept *accept_learn(const struct accept_rows *train, const struct accept_rows *held_out, int blocks, struct accept_result *result) {
    const int64_t C = train->C, n = train->n, epochs = epochs_of(n), steps = epochs * ((n + BATCH - 1) / BATCH);
    const size_t count = accept_count(C, blocks);
    const double mean = mean_share(train);
    // A step turns each weight by about the rate, and C of them, times what they are multiplied with, add up in a sum.
    const double most = RATE / ((double)C * sqrt(mean_square(train) + 1e-12));
    struct accept *a = accept_new(C, blocks);
    struct accept_work *w = accept_work_new(C, blocks);
    struct adam adam = {mem_array(count, sizeof(float), "Adam"), mem_array(count, sizeof(float), "Adam"), 0};
    float *grad = mem_array(count, sizeof *grad, "gradient");
    int32_t *order = numbers(n), *all = numbers(held_out->n);
    a->weights[count - 1] = (float)log(mean / (1 - mean));
    for (uint64_t epoch = 0; epoch < (uint64_t)epochs; epoch++) {
        shuffle(order, n, epoch);
        for (int64_t at = 0; at < n; at += BATCH) {
            accept_loss(a, train, order + at, n - at < BATCH ? n - at : BATCH, w, grad);
            const double done = (double)adam.step / (double)steps;
            adam_step(&adam, a->weights, grad, count, most * fmin(1, 20 * (done + 1 / (double)steps)) * 0.5 * (1 + cos(3.14159265358979 * done)));
        }
    }
    *result = (struct accept_result){.head = accept_loss(a, held_out, all, held_out->n, w, NULL)};
    rate_others(train, held_out, result);
    mem_free(adam.m), mem_free(adam.v), mem_free(grad), mem_free(order), mem_free(all);
    accept_work_free(w);
    return a;
}
