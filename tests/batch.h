// batch.h: random models, and random tokens for them to read and to learn from, for the suites of the model.
#ifndef LEHR_TESTS_BATCH_H
#define LEHR_TESTS_BATCH_H

#include "tests/ref_model.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const struct backend *cpu(void) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(NULL, &e);
    cr_assert(b, "%s", e.text);
    return b;
}

// A random trainable model whose norms are not ones.
static struct model *random_model(const struct model_config *c, enum dtype compute, uint64_t seed) {
    struct err e = {{0}};
    struct model *m = model_new(c, cpu(), compute, seed, &e);
    cr_assert(m, "%s", e.text);
    for (int i = 0; i < m->n_params; i++) {
        if (m->params[i].init_std != 0) continue;
        float *w = fetch_weights(m, i);
        for (int64_t k = 0; k < m->params[i].cols; k++)
            w[k] += .2f * (float)rng_normal(seed, 1000 + (uint64_t)i, (uint64_t)k);
        send_weights(m, i, w);
        free(w);
    }
    return m;
}

static void random_ids(int32_t *ids, int64_t n, int64_t V, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(seed, 77, (uint64_t)i, (uint64_t)V);
}

// A batch with several documents per sequence and some rows that do not count.
struct batch {
    int64_t rows, T;
    int32_t *ids, *targets, *doc_start;
};
static struct batch random_batch(int64_t sequences, int64_t T, int64_t V, uint64_t seed) {
    struct batch b = {sequences * T, T, NULL, NULL, NULL};
    size_t bytes = (size_t)b.rows * sizeof(int32_t);
    b.ids = malloc(bytes), b.targets = malloc(bytes), b.doc_start = malloc(bytes);
    random_ids(b.ids, b.rows, V, seed);
    random_ids(b.targets, b.rows, V, seed + 1);
    for (int64_t i = 0; i < b.rows; i++) {
        bool start = i % T == 0 || rng_below(seed, 78, (uint64_t)i, 5) == 0;
        b.doc_start[i] = start ? (int32_t)i : b.doc_start[i - 1];
        if (rng_below(seed, 79, (uint64_t)i, 7) == 0) b.targets[i] = -1;
    }
    return b;
}
static void free_batch(struct batch *b) { free(b->ids), free(b->targets), free(b->doc_start); }

#endif
