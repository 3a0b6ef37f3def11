// test_kernels.c: what the fast kernels promise beyond being close to plain C, namely equal bits.
//
// A row's numbers are the same alone, among others, in another batch, from rows or from packed
// weights, with AVX2 or AVX-512, on one thread or three; gradients are the same when a batch is
// split at segment boundaries. Levels the processor lacks are left out. Closeness to plain C is the
// op table's business (test_ops.c), except for shapes that only these kernels can get wrong: sizes
// around their tiles, panels and chunks, with nothing allocated beyond the tensors.
#include "backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// amx differs from avx512 in products only, i8mm from dotprod. Names of x86 in what tests say stand for those of ARM, too.
#ifdef __aarch64__
static const char *const level_names[] = {"neon", "dotprod", "i8mm"};
#else
static const char *const level_names[] = {"avx2", "avx512", "amx"};
#endif
enum { LEVELS = 2, PRODUCT_LEVELS = 3 };

static const struct backend *level(int i) {
    struct err err;
    return backend_cpu(level_names[i], &err);
}
static const struct backend *plain(void) {
    struct err err;
    const struct backend *b = backend_cpu("plain", &err);
    cr_assert(b != NULL, "%s", err.text);
    return b;
}

// Exactly count floats in [-1, 1), from the seed: the same call gives the same numbers.
static float *numbers(int64_t count, uint64_t seed) {
    float *x = malloc((size_t)count * sizeof *x + (count == 0));
    for (int64_t i = 0; i < count; i++) x[i] = (float)(2 * rng_uniform(seed, 7, (uint64_t)i) - 1);
    return x;
}
static struct tensor matrix(int64_t rows, int64_t cols, uint64_t seed) {
    return tensor_f32(numbers(rows * cols, seed), rows, cols);
}
static struct tensor as_dtype(struct tensor from, enum dtype dtype) {
    struct tensor t = from;
    t.dtype = dtype;
    cr_assert(dtype_row_bytes(dtype, from.cols, &t.row_bytes));
    t.data = malloc((size_t)t.rows * t.row_bytes);
    for (int64_t i = 0; i < t.rows; i++) {
        const float *row = (const float *)from.data + i * from.cols;
        if (dtype == DTYPE_F32)
            memcpy((char *)t.data + (size_t)i * t.row_bytes, row, t.row_bytes);
        else
            dtype_row(dtype)->from_f32(row, (char *)t.data + (size_t)i * t.row_bytes, from.cols);
    }
    return t;
}

#define SAME(a, b, count, ...)                                                                     \
    do {                                                                                           \
        const float *same_a = (a), *same_b = (b);                                                  \
        for (int64_t same_i = 0; same_i < (count); same_i++)                                       \
            if (memcmp(same_a + same_i, same_b + same_i, sizeof(float)) != 0) {                    \
                char where[200];                                                                   \
                snprintf(where, sizeof where, __VA_ARGS__);                                        \
                cr_assert(false, "%s: value %lld is %.9g, not %.9g", where, (long long)same_i,     \
                          (double)same_a[same_i], (double)same_b[same_i]);                         \
            }                                                                                      \
    } while (0)
#define NEAR(a, b, count, bound, ...)                                                              \
    do {                                                                                           \
        const float *near_a = (a), *near_b = (b);                                                  \
        for (int64_t near_i = 0; near_i < (count); near_i++)                                       \
            if (near_a[near_i] != near_b[near_i] &&                                                \
                !(fabs((double)near_a[near_i] - (double)near_b[near_i]) <= (bound))) {             \
                char where[200];                                                                   \
                snprintf(where, sizeof where, __VA_ARGS__);                                        \
                cr_assert(false, "%s: value %lld is %.9g, not %.9g", where, (long long)near_i,     \
                          (double)near_a[near_i], (double)near_b[near_i]);                         \
            }                                                                                      \
    } while (0)

// ---------------------------------------------------------------------------------------------------------------
// Products.

static const enum dtype weight_dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0,
                                           DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_IQ4_NL, DTYPE_MXFP4,
                                           DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_XS};
static const int64_t product_shapes[][3] = { // rows, M, K
    {1, 32, 32},     {2, 33, 64}, {5, 70, 96}, {8, 100, 288},   {9, 31, 320},    {13, 64, 544},
    {26, 129, 1056}, {3, 5, 7},   {17, 2, 3},  {110, 344, 128}, {200, 352, 1120},
    {3, 130, 512},   {75, 97, 768}};

static struct tensor product(const struct backend *b, struct tensor x, struct tensor w, float scale,
                             bool accumulate) {
    struct tensor out = matrix(x.rows, w.rows, 3);
    b->matmul(&(struct matmul_args){
        .out = out, .x = x, .w = w, .scale = scale, .accumulate = accumulate});
    return out;
}

static void check_product(int64_t n, int64_t M, int64_t K, enum dtype dtype, bool add) {
    const struct tensor x = matrix(n, K, 1), full = matrix(M, K, 2), w = as_dtype(full, dtype);
    const float scale = add ? 0.5f : 0;
    const struct tensor meaning = product(plain(), x, w, scale, add);
    struct tensor one_level = {0};
    for (int l = 0; l < PRODUCT_LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        struct err err;
        bool owned;
        struct tensor packed;
        cr_assert(b->weight_load(&packed, &w, &owned, &err), "%s", err.text);
        const struct tensor out = product(b, x, w, scale, add),
                            out2 = product(b, x, packed, scale, add);
        // 2^-24 per rounding; chains of 256, products up to 1.
        NEAR(out.data, meaning.data, n * M, 6e-8 * 16 * sqrt((double)K) * 4,
             "%s against plain, %s %lldx%lldx%lld", level_names[l], dtype_row(dtype)->name,
             (long long)n, (long long)M, (long long)K);
        SAME(out2.data, out.data, n * M, "%s packed, %s %lldx%lldx%lld", level_names[l],
             dtype_row(dtype)->name, (long long)n, (long long)M, (long long)K);
        if (one_level.data)
            SAME(out.data, one_level.data, n * M, "%s against the level before, %s %lldx%lldx%lld",
                 level_names[l], dtype_row(dtype)->name, (long long)n, (long long)M, (long long)K);
        // Every batch size from 1 to 9, at some place in the batch.
        for (int64_t rows = 1; rows <= n && rows < 10; rows++)
            for (int64_t at = 0; at + rows <= n; at += 7 * rows) {
                struct tensor some = matrix(n, M, 3);
                some = tensor_rows(some, at, rows);
                b->matmul(&(struct matmul_args){.out = some,
                                                .x = tensor_rows(x, at, rows),
                                                .w = packed,
                                                .scale = scale,
                                                .accumulate = add});
                SAME(some.data, (float *)out.data + at * M, rows * M,
                     "%s %lld rows at %lld of %s %lldx%lldx%lld", level_names[l], (long long)rows,
                     (long long)at, dtype_row(dtype)->name, (long long)n, (long long)M,
                     (long long)K);
                free((float *)some.data - at * M);
            }
        if (owned) b->free(packed.data);
        free(out2.data);
        if (one_level.data) free(one_level.data);
        one_level = out;
    }
    free(one_level.data), free(meaning.data), free(w.data), free(full.data), free(x.data);
}

Test(kernels, products_have_equal_bits_alone_in_batches_packed_and_on_all_levels) {
    pool_start(2);
    for (size_t s = 0; s < COUNT_OF(product_shapes); s++)
        for (size_t d = 0; d < COUNT_OF(weight_dtypes); d++) {
            const int64_t *shape = product_shapes[s];
            if (shape[2] % dtype_row(weight_dtypes[d])->block_weights) continue;
            check_product(shape[0], shape[1], shape[2], weight_dtypes[d], s % 2);
        }
}

// Products of PRECISION_BF16. What a matrix unit makes of 32 terms is not what plain C makes of them, but is the same
// bits alone, in every batch, from rows or packed, with any number of threads.
static struct tensor rounded_product(const struct backend *b, struct tensor x, struct tensor w, bool add) {
    struct tensor out = matrix(x.rows, w.rows, 3);
    b->matmul(&(struct matmul_args){.out = out,
                                    .x = x,
                                    .w = w,
                                    .scale = add ? 0.5f : 0,
                                    .accumulate = add,
                                    .precision = PRECISION_BF16});
    return out;
}

static void check_rounded(const struct backend *b, int64_t n, int64_t M, int64_t K, enum dtype dtype, bool add) {
    const struct tensor x = matrix(n, K, 1), full = matrix(M, K, 2), w = as_dtype(full, dtype);
    char name[80];
    snprintf(name, sizeof name, "%s %lldx%lldx%lld", dtype_row(dtype)->name, (long long)n, (long long)M, (long long)K);
    struct err err;
    bool owned;
    struct tensor packed;
    cr_assert(b->weight_load(&packed, &w, &owned, &err), "%s", err.text);
    pool_start(2);
    const struct tensor meaning = rounded_product(plain(), x, w, add), out = rounded_product(b, x, w, add);
    // As in check_product: 2^-24 per rounding, chains shorter than those of plain C.
    NEAR(out.data, meaning.data, n * M, 6e-8 * 16 * sqrt((double)K) * 4, "%s against plain", name);
    for (int threads = 1; threads <= 3; threads++) {
        pool_start(threads);
        const struct tensor again = rounded_product(b, x, packed, add);
        SAME(again.data, out.data, n * M, "%s packed, %d threads", name, threads);
        free(again.data);
    }
    for (int part = 0; part < 6; part++) {
        const int64_t at = (int64_t)rng_below(5, 1, (uint64_t)part, (uint64_t)n),
                      rows = part == 0 ? 1 : 1 + (int64_t)rng_below(5, 2, (uint64_t)part, (uint64_t)(n - at));
        struct tensor some = matrix(n, M, 3);
        b->matmul(&(struct matmul_args){.out = tensor_rows(some, at, rows),
                                        .x = tensor_rows(x, at, rows),
                                        .w = packed,
                                        .scale = add ? 0.5f : 0,
                                        .accumulate = add,
                                        .precision = PRECISION_BF16});
        SAME((float *)some.data + at * M, (float *)out.data + at * M, rows * M, "%s, %lld rows at %lld", name,
             (long long)rows, (long long)at);
        free(some.data);
    }
    if (owned) b->free(packed.data);
    free(x.data), free(full.data), free(w.data), free(meaning.data), free(out.data);
}

// Small weights share memory (cpu.c): each has its own part of it, whatever the others do.
Test(kernels, packed_weights_keep_their_numbers_while_others_come_and_go) {
    enum { WEIGHTS = 60, M = 640, K = 256, TURNS = 150 };
    const struct backend *b = level(0);
    for (int l = 1; l < PRODUCT_LEVELS; l++) b = level(l) ? level(l) : b;
    const struct tensor x = matrix(1, K, 1);
    struct tensor packed[WEIGHTS] = {0}, full[2] = {matrix(M, K, 2), matrix(M, K, 5)}, expected[2];
    for (int i = 0; i < 2; i++) expected[i] = product(b, x, full[i], 0, false);
    for (int turn = 0; turn < TURNS; turn++) {
        const int at = (int)rng_below(7, 0, (uint64_t)turn, WEIGHTS);
        struct err err;
        bool owned;
        if (packed[at].data) b->free(packed[at].data), packed[at].data = NULL;
        else cr_assert(b->weight_load(&packed[at], &full[at % 2], &owned, &err) && owned, "%s", err.text);
    }
    for (int i = 0; i < WEIGHTS; i++) {
        if (!packed[i].data) continue;
        const struct tensor out = product(b, x, packed[i], 0, false);
        SAME(out.data, expected[i % 2].data, M, "weight %d", i);
        free(out.data), b->free(packed[i].data);
    }
    for (int i = 0; i < 2; i++) free(full[i].data), free(expected[i].data);
    free(x.data);
}

Test(kernels, rounded_products_have_equal_bits_alone_in_batches_and_packed) {
    struct err err;
    const struct backend *b = backend_cpu("amx", &err);
    if (!b) return;
    for (uint64_t i = 0; i < 60; i++) {
        enum dtype dtype = weight_dtypes[i % COUNT_OF(weight_dtypes)];
        const int64_t block = dtype_row(dtype)->block_weights;
        const int64_t n = 1 + (int64_t)rng_below(11, 0, i, i % 4 ? 70 : 20), M = 1 + (int64_t)rng_below(11, 1, i, 150),
                      K = block * (1 + (int64_t)rng_below(11, 2, i, 1400 / (uint64_t)block));
        check_rounded(b, n, M, K, dtype, i % 3 == 0);
    }
    check_rounded(b, 520, 33, 40, DTYPE_F32, false); // more rows than a piece takes
    check_rounded(b, 3, 70, 4480, DTYPE_BF16, true);
    check_rounded(b, 40, 96, 768, DTYPE_Q4_K, false);
    check_rounded(b, 40, 40, 1280, DTYPE_Q6_K, true);
}

Test(kernels, levels_without_units_for_it_multiply_in_f32_whatever_is_asked) {
    pool_start(2);
    const struct tensor x = matrix(12, 300, 1), w = matrix(40, 300, 2);
    for (int l = 0; l < LEVELS; l++) {
        if (!level(l)) continue;
        const struct tensor exact = product(level(l), x, w, 0, false), asked = rounded_product(level(l), x, w, false);
        SAME(asked.data, exact.data, 12 * 40, "%s", level_names[l]);
        free(exact.data), free(asked.data);
    }
    free(x.data), free(w.data);
}

Test(kernels, rounded_gradients_do_not_depend_on_the_split_or_the_threads) {
    struct err err;
    const struct backend *b = backend_cpu("amx", &err);
    if (!b) return;
    const int64_t n = 600, M = 130, K = 299, segment = 150;
    const struct tensor x = matrix(n, K, 1), dout = matrix(n, M, 2), w = matrix(M, K, 3);
    struct tensor dw[3], dx[3];
    for (int i = 0; i < 3; i++) {
        const int64_t step = i == 2 ? segment : n;
        pool_start(i + 1);
        dw[i] = matrix(M, K, 4), dx[i] = matrix(n, K, 5);
        for (int64_t at = 0; at < n; at += step) {
            const struct tensor part = tensor_rows(dout, at, step);
            b->matmul_dw(&(struct matmul_dw_args){.dw = dw[i],
                                                  .dout = part,
                                                  .x = tensor_rows(x, at, step),
                                                  .segment = segment,
                                                  .precision = PRECISION_BF16});
            b->matmul_dx(&(struct matmul_dx_args){.dx = tensor_rows(dx[i], at, step),
                                                  .dout = part,
                                                  .w = w,
                                                  .precision = PRECISION_BF16});
        }
        SAME(dw[i].data, dw[0].data, M * K, "dw, way %d", i);
        SAME(dx[i].data, dx[0].data, n * K, "dx, way %d", i);
    }
    for (int i = 0; i < 3; i++) free(dw[i].data), free(dx[i].data);
    free(x.data), free(dout.data), free(w.data);
}

Test(kernels, packed_weights_embed_the_same_rows) {
    pool_start(1);
    const int32_t ids[4] = {0, 69, 31, 32};
    for (int l = 0; l < LEVELS; l++)
        for (size_t d = 0; d < COUNT_OF(weight_dtypes); d++) {
            const struct backend *b = level(l);
            if (!b) continue;
            const struct tensor full = matrix(70, 256, 2), w = as_dtype(full, weight_dtypes[d]);
            struct tensor packed, a = matrix(4, 256, 3), c = matrix(4, 256, 4);
            struct err err;
            bool owned;
            cr_assert(b->weight_load(&packed, &w, &owned, &err), "%s", err.text);
            plain()->embed(&(struct embed_args){.out = a, .table = w, .ids = ids, .scale = 1.5f});
            b->embed(&(struct embed_args){.out = c, .table = packed, .ids = ids, .scale = 1.5f});
            SAME(c.data, a.data, 4 * 256, "%s %s", level_names[l],
                 dtype_row(weight_dtypes[d])->name);
            if (owned) b->free(packed.data);
            free(full.data), free(w.data), free(a.data), free(c.data);
        }
}

Test(kernels, gradients_of_products_do_not_depend_on_the_split_the_level_or_the_threads) {
    const int64_t shapes[][4] = {{12, 40, 40, 4}, {600, 37, 65, 300},  {64, 13, 130, 16},
                                 {6, 7, 5, 1},    {512, 300, 33, 256}, {200, 1100, 352, 100}};
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        const int64_t n = shapes[s][0], M = shapes[s][1], K = shapes[s][2], segment = shapes[s][3];
        const struct tensor x = matrix(n, K, 1), dout = matrix(n, M, 2), w = matrix(M, K, 3);
        struct tensor dw[4], dx[4], first = {0};
        dw[0] = matrix(M, K, 4), dx[0] = matrix(n, K, 5);
        pool_start(2);
        plain()->matmul_dw(&(struct matmul_dw_args){
            .dw = dw[0], .dout = dout, .x = x, .scale = 0.5f, .segment = segment});
        plain()->matmul_dx(
            &(struct matmul_dx_args){.dx = dx[0], .dout = dout, .w = w, .accumulate = true});
        for (int l = 0; l < LEVELS; l++) {
            const struct backend *b = level(l);
            if (!b) continue;
            for (int i = 1; i < 4; i++) dw[i] = matrix(M, K, 4), dx[i] = matrix(n, K, 5);
            for (int i = 1; i < 4; i++) {
                pool_start(i == 2 ? 3 : 1);
                const int64_t step = i == 3 ? segment : n;
                for (int64_t at = 0; at < n; at += step) {
                    const struct tensor part = tensor_rows(dout, at, step);
                    b->matmul_dw(&(struct matmul_dw_args){.dw = dw[i],
                                                          .dout = part,
                                                          .x = tensor_rows(x, at, step),
                                                          .scale = 0.5f,
                                                          .segment = segment});
                    b->matmul_dx(&(struct matmul_dx_args){.dx = tensor_rows(dx[i], at, step),
                                                          .dout = part,
                                                          .w = w,
                                                          .accumulate = true});
                }
                SAME(dw[i].data, dw[1].data, M * K, "%s dw way %d, shape %zu", level_names[l], i,
                     s);
                SAME(dx[i].data, dx[1].data, n * K, "%s dx way %d, shape %zu", level_names[l], i,
                     s);
            }
            NEAR(dw[1].data, dw[0].data, M * K, 4e-6 * sqrt((double)n), "%s dw shape %zu",
                 level_names[l], s);
            NEAR(dx[1].data, dx[0].data, n * K, 4e-6 * sqrt((double)M), "%s dx shape %zu",
                 level_names[l], s);
            if (first.data)
                SAME(dw[1].data, first.data, M * K, "dw of avx512 against avx2, shape %zu", s);
            free(first.data);
            first = dw[1];
            free(dw[2].data), free(dw[3].data);
            for (int i = 1; i < 4; i++) free(dx[i].data);
        }
        free(first.data), free(dw[0].data), free(dx[0].data), free(x.data), free(dout.data),
            free(w.data);
    }
}

Test(kernels, a_slice_of_columns_is_read_and_written_inside_its_bounds) {
    pool_start(2);
    // out, x and w are columns [8, 8 + n) of wider tensors; what lies beside them stays.
    const int64_t n = 14, M = 37, K = 50, wide = 80;
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        struct tensor x = matrix(n, wide, 1), w = matrix(M, wide, 2), out = matrix(n, wide, 3),
                      before = matrix(n, wide, 3);
        struct tensor xs = x, ws = w, os = out;
        xs.data = (float *)x.data + 8, xs.cols = K;
        ws.data = (float *)w.data + 8, ws.cols = K;
        os.data = (float *)out.data + 8, os.cols = M;
        b->matmul(&(struct matmul_args){.out = os, .x = xs, .w = ws});
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < wide; c++) {
                const float *row = (const float *)out.data + i * wide,
                            *was = (const float *)before.data + i * wide;
                if (c < 8 || c >= 8 + M) {
                    cr_assert(row[c] == was[c], "%s: column %lld of row %lld changed",
                              level_names[l], (long long)c, (long long)i);
                    continue;
                }
                double sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum += (double)((float *)x.data)[i * wide + 8 + k] *
                           ((float *)w.data)[(c - 8) * wide + 8 + k];
                cr_assert(fabs(sum - row[c]) < 1e-5, "%s: %g is not %g", level_names[l],
                          (double)row[c], sum);
            }
        free(x.data), free(w.data), free(out.data), free(before.data);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Attention.

static const struct attend_shape {
    int64_t n, heads, kv_heads, head_size,
        keys; // keys 0: training, the rows themselves in segments
    int64_t segment;
    uint32_t drop;
} attend_shapes[] = {{1, 4, 2, 64, 40, 1, 0}, {7, 3, 1, 16, 300, 7, 0},
                     {33, 6, 2, 32, 600, 11, 0}, {200, 2, 2, 64, 0, 100, 13107},
                     {96, 8, 2, 24, 0, 96, 0}, {5, 4, 1, 80, 1500, 5, 0},
                     {40, 40, 2, 10, 90, 40, 0}, {3, 2, 1, 300, 20, 3, 0},
                     {640, 2, 1, 32, 0, 320, 6554}, {4, 200, 1, 8, 33, 4, 0}};

static struct attend_args attend_case(const struct attend_shape *s, enum dtype dtype) {
    const int64_t keys = s->keys ? s->keys : s->n;
    int32_t *lo = malloc((size_t)s->n * sizeof *lo), *hi = malloc((size_t)s->n * sizeof *hi);
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t start = i / s->segment * s->segment;
        lo[i] = (int32_t)(s->keys                      ? i / 4 * 3 % keys
                          : i - start > s->segment / 3 ? start + s->segment / 3
                                                       : start);
        hi[i] = (int32_t)(s->keys ? keys - (s->n - 1 - i) % keys : i + 1);
        if (s->keys && i == 2 && s->n > 5) hi[i] = lo[i]; // an empty range
    }
    const struct tensor k = matrix(keys, s->kv_heads * s->head_size, 2),
                        v = matrix(keys, s->kv_heads * s->head_size, 3);
    struct attend_args a = {.out = matrix(s->n, s->heads * s->head_size, 4),
                            .q = matrix(s->n, s->heads * s->head_size, 1),
                            .k = as_dtype(k, dtype),
                            .v = as_dtype(v, dtype),
                            .lo = lo,
                            .hi = hi,
                            .lse = numbers(s->n * s->heads, 5),
                            .heads = s->heads,
                            .kv_heads = s->kv_heads,
                            .head_size = s->head_size,
                            .scale = 1.3f,
                            .drop = {1, 2, 3, s->drop}};
    free(k.data), free(v.data);
    return a;
}
static void attend_case_free(struct attend_args *a) {
    free(a->out.data), free(a->q.data), free(a->k.data), free(a->v.data), free((void *)a->lo),
        free((void *)a->hi), free(a->lse);
}

Test(kernels, attention_has_equal_bits_alone_in_batches_and_on_both_levels) {
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t s = 0; s < COUNT_OF(attend_shapes); s++)
        for (size_t d = 0; d < COUNT_OF(dtypes); d++) {
            const struct attend_shape *shape = &attend_shapes[s];
            const int64_t wide = shape->heads * shape->head_size, n = shape->n;
            pool_start(2);
            struct attend_args meaning = attend_case(shape, dtypes[d]), first = {0};
            plain()->attend(&meaning);
            for (int l = 0; l < LEVELS; l++) {
                const struct backend *b = level(l);
                if (!b) continue;
                struct attend_args a = attend_case(shape, dtypes[d]);
                pool_start(l ? 3 : 1);
                b->attend(&a);
                // A score is a sum of head_size terms; its error goes into the exponent.
                NEAR(a.out.data, meaning.out.data, n * wide,
                     2e-6 + 1.3 * 6e-8 * (double)shape->head_size, "%s shape %zu %s",
                     level_names[l], s, dtype_row(dtypes[d])->name);
                NEAR(a.lse, meaning.lse, n * shape->heads, 2e-5, "%s shape %zu lse", level_names[l],
                     s);
                for (int64_t i = 0; i<n; i += n> 50 ? 17 : 1) {
                    struct attend_args one = a;
                    one.out = matrix(1, wide, 9), one.lse = numbers(shape->heads, 9);
                    one.q = tensor_rows(a.q, i, 1), one.lo += i, one.hi += i, one.drop.row += i;
                    b->attend(&one);
                    SAME(one.out.data, (float *)a.out.data + i * wide, wide,
                         "%s row %lld of shape %zu %s", level_names[l], (long long)i, s,
                         dtype_row(dtypes[d])->name);
                    SAME(one.lse, a.lse + i * shape->heads, shape->heads,
                         "%s lse of row %lld, shape %zu", level_names[l], (long long)i, s);
                    free(one.out.data), free(one.lse);
                }
                if (first.lse) {
                    SAME(a.out.data, first.out.data, n * wide, "avx512 against avx2, shape %zu %s",
                         s, dtype_row(dtypes[d])->name);
                    attend_case_free(&first);
                }
                first = a;
            }
            if (first.lse) attend_case_free(&first);
            attend_case_free(&meaning);
        }
}

// Rows of a sliding window, as a session reads them: batches of one and of many, few and many heads for a key.
static struct tensor held(const struct backend *b, struct tensor rows, enum dtype dtype, enum cache_side side, int64_t D) {
    struct err err;
    struct tensor t = rows;
    t.dtype = dtype, t.layout = LAYOUT_DEVICE, t.rows = (rows.rows + CACHE_ROWS - 1) / CACHE_ROWS * CACHE_ROWS;
    cr_assert(dtype_row_bytes(dtype, rows.cols, &t.row_bytes));
    t.data = b->alloc((size_t)t.rows * t.row_bytes, "cache", &err);
    int32_t *at = malloc((size_t)rows.rows * sizeof *at);
    for (int64_t i = 0; i < rows.rows; i++) at[i] = (int32_t)i;
    b->store_rows(&(struct store_rows_args){t, rows, at, side, D});
    free(at);
    return t;
}

Test(kernels, a_cache_of_any_dtype_gives_equal_bits_alone_in_batches_and_on_both_levels) {
    static const struct {
        int64_t n, heads, kv_heads, head_size, keys, window;
    } shapes[] = {{70, 3, 1, 64, 800, 300}, {40, 14, 2, 64, 600, 0}, {9, 4, 4, 128, 520, 33}, {50, 4, 2, 32, 300, 256}};
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    for (size_t c = 0; c < COUNT_OF(shapes) * COUNT_OF(dtypes); c++) {
        const int64_t n = shapes[c / 5].n, H = shapes[c / 5].heads, G = shapes[c / 5].kv_heads, D = shapes[c / 5].head_size,
                      keys = shapes[c / 5].keys, window = shapes[c / 5].window, wide = H * D;
        const struct tensor k = matrix(keys, G * D, 2), v = matrix(keys, G * D, 3), q = matrix(n, wide, 1);
        struct tensor first = {0};
        int32_t lo[70], hi[70];
        for (int64_t i = 0; i < n; i++) {
            hi[i] = (int32_t)(keys - n + i + 1);
            lo[i] = window && hi[i] > window ? hi[i] - (int32_t)window : 0;
        }
        for (int l = 0; l < LEVELS; l++) {
            const struct backend *b = level(l);
            if (!b) continue;
            pool_start(l ? 3 : 1);
            struct attend_args a = {.out = matrix(n, wide, 4), .q = q, .lo = lo, .hi = hi, .heads = H, .kv_heads = G,
                                    .head_size = D, .scale = .2f};
            a.k = held(b, k, dtypes[c % 5], CACHE_KEYS, D);
            a.v = held(b, v, dtypes[c / 5 == 1 ? (c + 1) % 5 : c % 5], CACHE_VALUES, D);
            b->attend(&a);
            for (int64_t i = 0; i < n; i += 7) {
                struct attend_args one = a;
                one.out = matrix(1, wide, 9), one.q = tensor_rows(q, i, 1), one.lo += i, one.hi += i;
                b->attend(&one);
                SAME(one.out.data, (float *)a.out.data + i * wide, wide, "%s row %lld of case %zu", level_names[l],
                     (long long)i, c);
                free(one.out.data);
            }
            if (first.data) SAME(a.out.data, first.data, n * wide, "avx512 against avx2, case %zu", c);
            free(first.data);
            first = a.out;
            b->free(a.k.data), b->free(a.v.data);
        }
        free(first.data), free(k.data), free(v.data), free(q.data);
    }
}

// Attention of PRECISION_BF16 as a session asks for it: a prompt whole, and in passes of 1, 7 and 256 rows, with a
// window or none, on 1 to 3 threads.
Test(kernels, rounded_attention_of_a_prompt_does_not_depend_on_its_cut) {
    enum { N = 290, BEFORE = 300, KEYS = BEFORE + N };
    static const struct {
        int64_t heads, kv_heads, head_size, window;
        float softcap;
    } shapes[] = {{9, 3, 64, 0, 0}, {4, 1, 256, 70, 0}, {2, 2, 96, 300, 5}};
    static const int64_t cuts[] = {1, 7, 256};
    struct err err;
    const struct backend *b = backend_cpu("amx", &err);
    if (!b) return;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        const int64_t H = shapes[s].heads, G = shapes[s].kv_heads, D = shapes[s].head_size, wide = H * D;
        const struct tensor k = matrix(KEYS, G * D, 2), v = matrix(KEYS, G * D, 3), q = matrix(N, wide, 1);
        const struct tensor out = matrix(N, wide, 4), meaning = matrix(N, wide, 5), part = matrix(N, wide, 6);
        float *lse = numbers(N * H, 7), *lse_meant = numbers(N * H, 8), *lse_part = numbers(N * H, 9);
        int32_t lo[N], hi[N];
        for (int64_t i = 0; i < KEYS * G * D; i++) { // numbers that F16 and BF16 both have
            ((float *)k.data)[i] = rintf(((float *)k.data)[i] * 128) / 128;
            ((float *)v.data)[i] = rintf(((float *)v.data)[i] * 128) / 128;
        }
        for (int64_t i = 0; i < N; i++) {
            hi[i] = (int32_t)(BEFORE + i + 1);
            lo[i] = shapes[s].window ? hi[i] - (int32_t)shapes[s].window : 0;
        }
        struct attend_args a = {.out = meaning, .q = q, .k = k, .v = v, .lo = lo, .hi = hi, .lse = lse_meant, .heads = H,
                                .kv_heads = G, .head_size = D, .scale = .3f, .softcap = shapes[s].softcap,
                                .precision = PRECISION_BF16};
        pool_start(2);
        plain()->attend(&a);
        a.k = held(b, k, DTYPE_F16, CACHE_KEYS, D), a.v = held(b, v, DTYPE_BF16, CACHE_VALUES, D);
        a.out = out, a.lse = lse;
        b->attend(&a);
        // Both round p_j, each within 2^-8 of itself, and v is within 1. No p_j that was rounded is in the sum.
        NEAR(out.data, meaning.data, N * wide, 0x1p-7, "shape %zu", s);
        NEAR(lse, lse_meant, N * H, 1e-5, "lse of shape %zu", s);
        for (size_t c = 0; c < COUNT_OF(cuts); c++) {
            pool_start((int)c + 1);
            for (int64_t at = 0; at < N; at += cuts[c]) {
                const int64_t count = at + cuts[c] < N ? cuts[c] : N - at;
                struct attend_args some = a;
                some.q = tensor_rows(q, at, count), some.out = tensor_rows(part, at, count);
                some.lo += at, some.hi += at, some.lse = lse_part + at * H;
                b->attend(&some);
            }
            SAME(part.data, out.data, N * wide, "shape %zu by %lld rows", s, (long long)cuts[c]);
            SAME(lse_part, lse, N * H, "lse of shape %zu by %lld rows", s, (long long)cuts[c]);
        }
        b->free(a.k.data), b->free(a.v.data);
        free(k.data), free(v.data), free(q.data), free(out.data), free(meaning.data), free(part.data);
        free(lse), free(lse_meant), free(lse_part);
    }
}

static struct attend_back_args back_case(const struct attend_args *a, int64_t segment) {
    return (struct attend_back_args){.dq = matrix(a->q.rows, a->q.cols, 6),
                                     .dk = matrix(a->k.rows, a->k.cols, 7),
                                     .dv = matrix(a->k.rows, a->k.cols, 8),
                                     .dout = matrix(a->q.rows, a->q.cols, 9),
                                     .out = a->out,
                                     .q = a->q,
                                     .k = a->k,
                                     .v = a->v,
                                     .lo = a->lo,
                                     .hi = a->hi,
                                     .lse = a->lse,
                                     .heads = a->heads,
                                     .kv_heads = a->kv_heads,
                                     .head_size = a->head_size,
                                     .scale = a->scale,
                                     .segment = segment,
                                     .drop = a->drop};
}
static void back_case_free(struct attend_back_args *b) {
    free(b->dq.data), free(b->dk.data), free(b->dv.data), free(b->dout.data);
}

Test(kernels, attention_gradients_do_not_depend_on_the_split_or_the_level) {
    pool_start(2);
    for (size_t s = 0; s < COUNT_OF(attend_shapes); s++) {
        const struct attend_shape *shape = &attend_shapes[s];
        if (shape->keys) continue;
        struct attend_args a = attend_case(shape, DTYPE_F32);
        plain()->attend(&a);
        struct attend_back_args meaning = back_case(&a, shape->segment), first = {0};
        plain()->attend_back(&meaning);
        const int64_t nq = a.q.rows * a.q.cols, nk = a.k.rows * a.k.cols, segment = shape->segment;
        for (int l = 0; l < LEVELS; l++) {
            const struct backend *b = level(l);
            if (!b) continue;
            struct attend_back_args whole = back_case(&a, segment), split = back_case(&a, segment);
            b->attend_back(&whole);
            for (int64_t at = 0; at < shape->n; at += segment) {
                struct attend_back_args part = split;
                struct tensor *const views[] = {&part.dq,  &part.dk, &part.dv, &part.dout,
                                                &part.out, &part.q,  &part.k,  &part.v};
                for (size_t i = 0; i < COUNT_OF(views); i++)
                    *views[i] = tensor_rows(*views[i], at, segment);
                int32_t *lo = malloc((size_t)segment * sizeof *lo),
                        *hi = malloc((size_t)segment * sizeof *hi);
                for (int64_t i = 0; i < segment; i++)
                    lo[i] = a.lo[at + i] - (int32_t)at, hi[i] = a.hi[at + i] - (int32_t)at;
                part.lo = lo, part.hi = hi, part.lse += at * shape->heads, part.drop.row += at;
                b->attend_back(&part);
                free(lo), free(hi);
            }
            NEAR(whole.dq.data, meaning.dq.data, nq, 5e-5, "%s dq of shape %zu", level_names[l], s);
            NEAR(whole.dk.data, meaning.dk.data, nk, 2e-4, "%s dk of shape %zu", level_names[l], s);
            NEAR(whole.dv.data, meaning.dv.data, nk, 1e-4, "%s dv of shape %zu", level_names[l], s);
            SAME(split.dq.data, whole.dq.data, nq, "%s dq of shape %zu, split", level_names[l], s);
            SAME(split.dk.data, whole.dk.data, nk, "%s dk of shape %zu, split", level_names[l], s);
            SAME(split.dv.data, whole.dv.data, nk, "%s dv of shape %zu, split", level_names[l], s);
            if (first.heads) {
                SAME(whole.dq.data, first.dq.data, nq, "dq of shape %zu, avx512 against avx2", s);
                SAME(whole.dk.data, first.dk.data, nk, "dk of shape %zu, avx512 against avx2", s);
                SAME(whole.dv.data, first.dv.data, nk, "dv of shape %zu, avx512 against avx2", s);
                back_case_free(&first);
            }
            first = whole;
            back_case_free(&split);
        }
        if (first.heads) back_case_free(&first);
        back_case_free(&meaning);
        attend_case_free(&a);
    }
}

// Root of the mean square of a - b over that of b.
static double off_by(struct tensor a, struct tensor b) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < a.rows * a.cols; i++) {
        const double x = ((float *)a.data)[i], y = ((float *)b.data)[i];
        error += (x - y) * (x - y), size += y * y;
    }
    return sqrt(error / size);
}

// A way to a gradient has five roundings to bf16, of 0.41 2^-8 on average each, together 0.9 2^-8.
Test(kernels, rounded_attention_gradients_do_not_depend_on_the_split_or_the_threads) {
    static const struct attend_shape shapes[] = {
        {.n = 80, .heads = 6, .kv_heads = 2, .head_size = 32, .segment = 40},
        {.n = 600, .heads = 3, .kv_heads = 1, .head_size = 64, .segment = 300},
        {.n = 140, .heads = 2, .kv_heads = 2, .head_size = 96, .segment = 70},
        {.n = 640, .heads = 3, .kv_heads = 1, .head_size = 64, .segment = 320, .drop = 13107},
        {.n = 80, .heads = 6, .kv_heads = 2, .head_size = 32, .segment = 40, .drop = 6554}};
    struct err err;
    const struct backend *b = backend_cpu("amx", &err);
    if (!b) return;
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        const int64_t n = shapes[s].n, segment = shapes[s].segment, H = shapes[s].heads;
        struct attend_args a = attend_case(&shapes[s], DTYPE_F32);
        a.scale = 1 / sqrtf((float)a.head_size);
        pool_start(2);
        plain()->attend(&a);
        struct attend_back_args meaning = back_case(&a, segment), made[3];
        plain()->attend_back(&meaning);
        for (int i = 0; i < 3; i++) {
            const int64_t step = i == 2 ? segment : n;
            pool_start(i + 1);
            made[i] = back_case(&a, segment);
            for (int64_t at = 0; at < n; at += step) {
                struct attend_back_args part = made[i];
                struct tensor *const views[] = {&part.dq, &part.dk, &part.dv, &part.dout, &part.out, &part.q, &part.k, &part.v};
                for (size_t t = 0; t < COUNT_OF(views); t++) *views[t] = tensor_rows(*views[t], at, step);
                int32_t *lo = malloc((size_t)step * sizeof *lo), *hi = malloc((size_t)step * sizeof *hi);
                for (int64_t r = 0; r < step; r++) lo[r] = a.lo[at + r] - (int32_t)at, hi[r] = a.hi[at + r] - (int32_t)at;
                part.lo = lo, part.hi = hi, part.lse += at * H, part.precision = PRECISION_BF16, part.drop.row += at;
                b->attend_back(&part);
                free(lo), free(hi);
            }
            SAME(made[i].dq.data, made[0].dq.data, n * a.q.cols, "dq of shape %zu, way %d", s, i);
            SAME(made[i].dk.data, made[0].dk.data, n * a.k.cols, "dk of shape %zu, way %d", s, i);
            SAME(made[i].dv.data, made[0].dv.data, n * a.k.cols, "dv of shape %zu, way %d", s, i);
        }
        const double dq = off_by(made[0].dq, meaning.dq), dk = off_by(made[0].dk, meaning.dk), dv = off_by(made[0].dv, meaning.dv);
        cr_assert(dq < 0x1.8p-8 && dk < 0x1.8p-8 && dv < 0x1.8p-8, "shape %zu: off by %g %g %g", s, dq, dk, dv);
        for (int i = 0; i < 3; i++) back_case_free(&made[i]);
        back_case_free(&meaning);
        attend_case_free(&a);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Sums along a row, functions of our own.

Test(kernels, row_sums_have_equal_bits_on_both_levels) {
    pool_start(2);
    const struct backend *a = level(0), *b = level(1);
    if (!a || !b) return;
    const int64_t widths[] = {1, 7, 16, 33, 63, 64, 65, 100, 128, 200, 577};
    for (size_t s = 0; s < COUNT_OF(widths); s++) {
        const int64_t C = widths[s], n = 12;
        const struct backend *const both[2] = {a, b};
        struct tensor out[2], dx[2], dw[2], logits[2];
        float *loss[2];
        double squares[2];
        const struct tensor x = matrix(n, C, 1), w = matrix(1, C, 2), dout = matrix(n, C, 3);
        int32_t targets[12];
        for (int64_t i = 0; i < n; i++) targets[i] = i == 3 ? -1 : (int32_t)(i * 7 % C);
        for (int l = 0; l < 2; l++) {
            out[l] = matrix(n, C, 4), dx[l] = matrix(n, C, 5), dw[l] = matrix(1, C, 6),
            logits[l] = matrix(n, C, 7), loss[l] = numbers(n, 8);
            for (int64_t i = 0; i < n * C; i++) ((float *)logits[l].data)[i] *= 20;
            both[l]->rmsnorm(
                &(struct rmsnorm_args){.out = out[l], .x = x, .weight = w, .eps = 1e-5f});
            both[l]->rmsnorm_back(&(struct rmsnorm_back_args){.dx = dx[l],
                                                              .dweight = dw[l],
                                                              .dout = dout,
                                                              .x = x,
                                                              .weight = w,
                                                              .eps = 1e-5f,
                                                              .segment = 4});
            both[l]->cross_entropy(&(struct cross_entropy_args){
                .loss = loss[l], .logits = logits[l], .targets = targets, .grad_scale = 0.25f});
            both[l]->sum_squares(&(struct sum_squares_args){.out = &squares[l], .x = x});
        }
        SAME(out[1].data, out[0].data, n * C, "rmsnorm of %lld", (long long)C);
        SAME(dx[1].data, dx[0].data, n * C, "rmsnorm_back dx of %lld", (long long)C);
        SAME(dw[1].data, dw[0].data, C, "rmsnorm_back dweight of %lld", (long long)C);
        SAME(logits[1].data, logits[0].data, n * C, "cross_entropy gradient of %lld", (long long)C);
        SAME(loss[1], loss[0], n, "cross_entropy of %lld", (long long)C);
        cr_assert(squares[0] == squares[1], "sum_squares of %lld", (long long)C);
        for (int l = 0; l < 2; l++)
            free(out[l].data), free(dx[l].data), free(dw[l].data), free(logits[l].data),
                free(loss[l]);
        free(x.data), free(w.data), free(dout.data);
    }
}

// The exponential stands behind SILU: x / (1 + e^-x) with up = 1.
Test(kernels, the_exponential_is_within_a_few_units_in_the_last_place_and_keeps_nan) {
    pool_start(1);
    enum { N = 4001 };
    float x[N], ones[N], out[N];
    for (int i = 0; i < N; i++) x[i] = -80 + 0.04f * (float)i, ones[i] = 1;
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        struct glu_args a = {.out = tensor_f32(out, 1, N),
                             .gate = tensor_f32(x, 1, N),
                             .up = tensor_f32(ones, 1, N)};
        b->glu(&a);
        for (int i = 0; i < N; i++) {
            const double want = x[i] / (1 + exp(-(double)x[i]));
            cr_assert(fabs(out[i] - want) <= 5e-7 * fabs(want) + 1e-37,
                      "%s: silu(%.9g) = %.9g, not %.9g", level_names[l], (double)x[i],
                      (double)out[i], want);
        }
        float edge[4] = {NAN, -200, 200, -INFINITY}, got[4];
        b->glu(&(struct glu_args){.out = tensor_f32(got, 1, 4),
                                  .gate = tensor_f32(edge, 1, 4),
                                  .up = tensor_f32(ones, 1, 4)});
        cr_assert(isnan(got[0]), "%s: NaN is kept", level_names[l]);
        cr_assert(fabsf(got[1]) < 1e-30f && got[2] == 200, "%s: silu(-200) = %g, silu(200) = %g",
                  level_names[l], (double)got[1], (double)got[2]);
    }
}
