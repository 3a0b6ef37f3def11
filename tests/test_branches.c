// test_branches.c: project and feed_forward have the bits of the ops they stand for, on every level, in every precision, for
// formats mixed as files mix them, with and without norm, gate and bias, whatever is kept.
#include "backend.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#ifdef LEHR_ON_GPU
static const char *const level_names[] = {NULL}; // see place.h
#else
static const char *const level_names[] = {"plain", "avx2", "avx512", "amx", "neon", "dotprod", "i8mm"};
#endif

static const struct backend *backend; // whose level is tested

static void *sent(const void *from, size_t bytes) {
    struct err err;
    void *to = backend->alloc(bytes, "a matrix", &err);
    cr_assert(to, "%s", err.text);
    backend->upload(to, from, bytes);
    return to;
}
static float *numbers(int64_t n, uint64_t seed) {
    float *x = mem_array((size_t)n, sizeof *x, "numbers");
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * rng_uniform(seed, 7, (uint64_t)i) - 1);
    return x;
}
static struct tensor matrix(int64_t rows, int64_t cols, uint64_t seed) {
    float *x = numbers(rows * cols, seed);
    const struct tensor t = tensor_f32(sent(x, (size_t)(rows * cols) * sizeof *x), rows, cols);
    mem_free(x);
    return t;
}

// A weight of a format, packed or as rows, from rows in the host's memory.
struct weight {
    struct tensor rows, packed;
    void *from;
    bool owned;
};
static struct weight weight_make(enum dtype dtype, int64_t M, int64_t K, uint64_t seed) {
    struct err err;
    struct tensor t = tensor_f32(NULL, M, K);
    struct weight w;
    float *x = numbers(M * K, seed);
    t.dtype = dtype;
    cr_assert(dtype_row_bytes(dtype, K, &t.row_bytes));
    t.data = w.from = mem_array((size_t)M, t.row_bytes, "a weight");
    for (int64_t i = 0; i < M; i++) {
        char *row = (char *)t.data + (size_t)i * t.row_bytes;
        if (dtype == DTYPE_F32) memcpy(row, x + i * K, t.row_bytes);
        else dtype_row(dtype)->from_f32(x + i * K, row, K);
    }
    mem_free(x);
    cr_assert(backend->weight_load(&w.packed, &t, &w.owned, &err), "%s", err.text);
    w.rows = t;
    w.rows.data = sent(t.data, (size_t)M * t.row_bytes);
    return w;
}
static void weight_free(struct weight *w) {
    if (w->owned) backend->free(w->packed.data);
    backend->free(w->rows.data);
    mem_free(w->from);
}

static void same(const struct tensor *a, const struct tensor *b, const char *what, const char *where) {
    const size_t bytes = (size_t)a->rows * a->row_bytes;
    char *x = mem_alloc(bytes, "bits"), *y = mem_alloc(bytes, "bits");
    backend->download(x, a->data, bytes);
    backend->download(y, b->data, bytes);
    cr_assert(memcmp(x, y, bytes) == 0, "%s, %s: not the bits of the ops one by one", where, what);
    mem_free(x), mem_free(y);
}

struct mix {
    const char *name;
    enum dtype first, second, third; // q, k, v; gate, up, down
    int64_t K, F;
};
static const struct mix mixes[] = {
    {"F32", DTYPE_F32, DTYPE_F32, DTYPE_F32, 70, 45},
    {"BF16", DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 320, 352},
    {"Q8_0", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, 608, 416},
    {"Q8_0, long sums", DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0, 4864, 64},
    {"Q4_0 with Q4_1", DTYPE_Q4_0, DTYPE_Q4_0, DTYPE_Q4_1, 96, 192},
    {"Q4_K with Q6_K", DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q6_K, 512, 768},
    {"Q4_K with Q6_K and F16", DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_F16, 256, 256},
};
#ifdef CUDA_ON_CPU
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif
static const int64_t row_counts[] = {1, 3, 8, 70, 270}; // 270: rows of their own for two threads

// How a case is called.
struct way {
    int64_t n;
    enum precision precision;
    bool norm, packed, keep;
    char where[128];
};

static void check_project(const struct mix *m, const struct way *y, struct weight w[3]) {
    const int64_t M[3] = {99, 33, 64};
    struct tensor x = matrix(y->n, m->K, 1), norm = matrix(1, m->K, 2), normed = matrix(y->n, m->K, 3), entering = matrix(y->n, m->K, 4);
    struct project_args a = {.x = x, .normed = normed, .eps = 1e-5f, .count = 3, .precision = y->precision, .keep = y->keep};
    if (y->norm) a.norm = norm, backend->rmsnorm(&(struct rmsnorm_args){entering, x, norm, 1e-5f});
    struct tensor expected[3];
    for (int j = 0; j < 3; j++) {
        a.to[j].out = matrix(y->n, M[j], 5), a.to[j].w = y->packed ? w[j].packed : w[j].rows;
        expected[j] = matrix(y->n, M[j], 6);
        backend->matmul(&(struct matmul_args){.out = expected[j], .x = y->norm ? entering : x, .w = a.to[j].w, .precision = y->precision});
    }
    backend->project(&a);
    for (int j = 0; j < 3; j++) {
        same(&a.to[j].out, &expected[j], "project", y->where);
        backend->free(a.to[j].out.data);
        backend->free(expected[j].data);
    }
    if (y->norm && y->keep) same(&normed, &entering, "normed", y->where);
    struct tensor *all[] = {&x, &norm, &normed, &entering};
    for (size_t i = 0; i < COUNT_OF(all); i++) backend->free(all[i]->data);
}

// gated: with a gate; added: to what is in out, with a bias before the gate where the level has one.
static void check_feed(const struct mix *m, const struct way *y, struct weight w[3], bool gated, bool bias) {
    const int64_t n = y->n, K = m->K, F = m->F, C = 50;
    const enum glu_kind kind = gated && n % 2 ? GLU_GELU : GLU_SILU;
    struct tensor x = matrix(n, K, 1), norm = matrix(1, K, 2), normed = matrix(n, K, 3), entering = matrix(n, K, 4), shift = matrix(1, F, 5);
    struct tensor out = matrix(n, C, 6), expected = matrix(n, C, 6), room[3], part[3];
    for (int i = 0; i < 3; i++) room[i] = matrix(n, F, 7), part[i] = matrix(n, F, 8);
    struct feed_forward_args a = {
        .out = out, .x = x, .normed = normed, .eps = 1e-5f, .up = y->packed ? w[1].packed : w[1].rows,
        .down = y->packed ? w[2].packed : w[2].rows, .gates = room[0], .ups = room[1], .product = room[y->keep ? 2 : 0],
        .kind = kind, .scale = bias ? 0.5f : 0, .accumulate = bias, .precision = y->precision, .keep = y->keep};
    if (gated) a.gate = y->packed ? w[0].packed : w[0].rows;
    if (bias) a.up_bias = shift;
    if (y->norm) a.norm = norm, backend->rmsnorm(&(struct rmsnorm_args){entering, x, norm, 1e-5f});
    const struct tensor in = y->norm ? entering : x;
    backend->matmul(&(struct matmul_args){.out = part[1], .x = in, .w = a.up, .precision = y->precision});
    if (bias) backend->bias(&(struct bias_args){part[1], shift, 1});
    if (gated) backend->matmul(&(struct matmul_args){.out = part[0], .x = in, .w = a.gate, .precision = y->precision});
    if (gated) backend->glu(&(struct glu_args){part[2], part[0], part[1], kind});
    else backend->glu(&(struct glu_args){part[2], part[1], {0}, kind});
    backend->matmul(&(struct matmul_args){expected, part[2], a.down, a.scale, a.accumulate, y->precision});
    backend->feed_forward(&a);
    same(&out, &expected, "feed_forward", y->where);
    if (y->keep) {
        same(&room[1], &part[1], "ups", y->where);
        if (gated) same(&room[0], &part[0], "gates", y->where);
        same(&room[2], &part[2], "product", y->where);
        a.down = (struct tensor){0}, a.keep = false; // without down the product is what comes out
        backend->feed_forward(&a);
        same(&a.product, &part[2], "product alone", y->where);
    }
    struct tensor *all[] = {&x, &norm, &normed, &entering, &shift, &out, &expected};
    for (size_t i = 0; i < COUNT_OF(all); i++) backend->free(all[i]->data);
    for (int i = 0; i < 3; i++) backend->free(room[i].data), backend->free(part[i].data);
}

static void check_mix(const char *level, const struct mix *m) {
    struct weight project[3] = {weight_make(m->first, 99, m->K, 11), weight_make(m->second, 33, m->K, 12), weight_make(m->third, 64, m->K, 13)};
    struct weight feed[3] = {weight_make(m->first, m->F, m->K, 14), weight_make(m->second, m->F, m->K, 15), weight_make(m->third, 50, m->F, 16)};
    for (size_t r = 0; r < COUNT_OF(row_counts); r++)
        for (int bits = 0; bits < 16; bits++) {
            struct way y = {row_counts[r], bits & 1 ? PRECISION_BF16 : PRECISION_F32, bits & 2, bits & 4, bits & 8, ""};
            if (strcmp(level, "plain") == 0 && (y.n > 17 || !y.packed)) continue; // slow, and one way only
            if (SLOW && (y.n > 17 || y.keep || !y.packed)) continue;
            snprintf(y.where, sizeof y.where, "%s %s, %lld rows%s%s%s%s", level, m->name, (long long)y.n, bits & 1 ? ", rounded" : "",
                     y.norm ? ", normed" : "", y.packed ? ", packed" : "", y.keep ? ", kept" : "");
            check_project(m, &y, project);
            check_feed(m, &y, feed, true, false);
            check_feed(m, &y, feed, r % 2, true);
        }
    for (int j = 0; j < 3; j++) weight_free(&project[j]), weight_free(&feed[j]);
}

static void check_level(int l) {
    struct err err;
    backend = backend_cpu(level_names[l], &err);
    pool_start(2);
    for (size_t i = 0; backend && i < COUNT_OF(mixes); i++) check_mix(level_names[l] ? level_names[l] : "GPU", &mixes[i]);
}
#ifdef LEHR_ON_GPU
Test(branches, of_a_gpu_are_the_ops_bit_for_bit, .timeout = 600) { check_level(0); }
#else
Test(branches, of_plain_are_the_ops_bit_for_bit, .timeout = 120) { check_level(0); }
Test(branches, of_avx2_are_the_ops_bit_for_bit, .timeout = 120) { check_level(1); }
Test(branches, of_avx512_are_the_ops_bit_for_bit, .timeout = 120) { check_level(2); }
Test(branches, of_amx_are_the_ops_bit_for_bit, .timeout = 120) { check_level(3); }
Test(branches, of_neon_are_the_ops_bit_for_bit, .timeout = 120) { check_level(4); }
Test(branches, of_dotprod_are_the_ops_bit_for_bit, .timeout = 120) { check_level(5); }
Test(branches, of_i8mm_are_the_ops_bit_for_bit, .timeout = 120) { check_level(6); }
#endif
