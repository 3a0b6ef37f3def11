// batch.h: random tokens to read and to learn from, for the suites of the model.
#ifndef LEHR_TESTS_BATCH_H
#define LEHR_TESTS_BATCH_H

#include "core/core.h"

#include <stdlib.h>

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
