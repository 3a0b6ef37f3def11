// test_blocks.c: what the table of op_cases.c does not ask of block formats on a GPU: bits and bytes equal to the processor's, products
// in exactly the order that cuda/matmul_blocks.cu states, and experts' rows with the bits of matmul.
#include "core/blocks.h"
#include "backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/place.h"

static const struct backend *cuda(void) { return place_gpu(); }
static void *sent(const void *from, size_t bytes) {
    struct err err;
    void *p = cuda()->alloc(bytes, "room of a test", &err);
    cr_assert(p);
    if (from) cuda()->upload(p, from, bytes);
    return p;
}
static bool is_block(enum dtype d) { return dtype_row(d)->block_weights > 1; }
static float *noise(int64_t n, uint64_t seed) {
    float *x = mem_array((size_t)n, sizeof *x, "noise");
    for (int64_t i = 0; i < n; i++) x[i] = (float)rng_normal(seed, 1, (uint64_t)i);
    return x;
}

struct weight {
    struct tensor host, device;
    bool owned;
};
static struct weight weight_open(enum dtype d, int64_t rows, int64_t cols, uint64_t seed, bool loaded) {
    struct weight w = {.host = {NULL, d, LAYOUT_ROWS, 1, rows, cols, 0}};
    cr_assert(dtype_row_bytes(d, cols, &w.host.row_bytes));
    float *x = noise(rows * cols, seed);
    w.host.data = mem_alloc((size_t)rows * w.host.row_bytes, "weight");
    dtype_row(d)->from_f32(x, w.host.data, rows * cols);
    mem_free(x);
    struct err err;
    if (loaded) cr_assert(cuda()->weight_load(&w.device, &w.host, &w.owned, &err), "%s", err.text);
    else w.device = w.host, w.device.data = sent(w.host.data, (size_t)rows * w.host.row_bytes), w.owned = true;
    return w;
}
static void weight_close(struct weight *w) {
    mem_free(w->host.data);
    if (w->owned) cuda()->free(w->device.data);
}

TestSuite(cuda_blocks, .timeout = 600);

Test(cuda_blocks, rows_are_looked_up_with_the_bits_of_the_processor) {
    enum { V = 9, C = 768, N = 5 };
    const int32_t ids[N] = {8, 0, 3, 3, 7};
    for (int d = 0; d < DTYPE_COUNT; d++)
        for (int loaded = 0; loaded <= 1 && dtype_row((enum dtype)d)->to_f32; loaded++) {
            struct weight w = weight_open((enum dtype)d, V, C, 5 + (uint64_t)d, loaded);
            void *where = sent(ids, sizeof ids);
            float *out = sent(NULL, N * C * sizeof(float)), got[N * C], want[C];
            cuda()->embed(&(struct embed_args){tensor_f32(out, N, C), w.device, where, 1.7f});
            cuda()->download(got, out, sizeof got);
            for (int i = 0; i < N; i++) {
                dtype_row((enum dtype)d)->to_f32((char *)w.host.data + (size_t)ids[i] * w.host.row_bytes, want, C);
                for (int c = 0; c < C; c++) want[c] = 1.7f * want[c];
                cr_assert(memcmp(want, got + i * C, sizeof want) == 0, "%s, loaded %d, row %d", dtype_row((enum dtype)d)->name, loaded, i);
            }
            cuda()->free(out), cuda()->free(where);
            weight_close(&w);
        }
}

Test(cuda_blocks, casts_make_the_bytes_of_core) {
    enum { ROWS = 6, C = 512 };
    float *x = noise(ROWS * C, 3);
    for (int c = 0; c < C; c++) x[C + c] *= 1e-6f, x[2 * C + c] = c % 7 ? 0 : x[2 * C + c], x[3 * C + c] = fabsf(x[3 * C + c]) + 2;
    x[4 * C + 5] = NAN, x[4 * C + 300] = INFINITY, x[4 * C + 400] = 7e4f, x[4 * C + 401] = 3e38f, x[4 * C + 64] = 1e-41f;
    for (int c = 0; c < C; c++) x[5 * C + c] = c < 256 ? 0 : -1e-39f;
    float *src = sent(x, ROWS * C * sizeof(float));
    for (int d = 0; d < DTYPE_COUNT; d++) {
        size_t row;
        if (!dtype_row((enum dtype)d)->from_f32) continue;
        cr_assert(dtype_row_bytes((enum dtype)d, C, &row));
        unsigned char *want = mem_alloc(ROWS * row, "bytes"), *got = mem_alloc(ROWS * row, "bytes");
        void *dst = sent(want, ROWS * row);
        dtype_row((enum dtype)d)->from_f32(x, want, ROWS * C);
        cuda()->cast(&(struct cast_args){{dst, (enum dtype)d, LAYOUT_ROWS, 1, ROWS, C, row}, tensor_f32(src, ROWS, C)});
        cuda()->download(got, dst, ROWS * row);
        for (int i = 0; i < ROWS; i++) cr_expect(memcmp(want + (size_t)i * row, got + (size_t)i * row, row) == 0, "%s, row %d", dtype_row((enum dtype)d)->name, i);
        cuda()->free(dst), mem_free(want), mem_free(got);
    }
    cuda()->free(src), mem_free(x);
}

// One output by the formula: chains over blocks of 256 columns, each from zero, block sums in order.
static float product_of(enum dtype d, const unsigned char *row, const float *x, int64_t K) {
    const struct block_form *form = d == DTYPE_Q8_0 ? NULL : block_form(d);
    const int64_t weights = form ? form->weights : QK, group = form ? form->group : QK;
    struct block_parts parts = {.scale = {1}};
    float total = 0, sum = 0;
    for (int64_t k = 0; k < K; k += group) {
        const unsigned char *block = row + k / weights * dtype_row(d)->block_bytes;
        if (form && k % weights == 0) form->split(block, &parts);
        if (!form) parts.d = f16_to_f32(((const struct block_q8_0 *)(const void *)block)->d);
        float most = 0;
        for (int64_t j = k / QK * QK; j < k / QK * QK + QK; j++) most = fmaxf(most, fabsf(x[j]));
        const float inverse = most < 1e-30f ? 0 : 32512 / most, step = most < 1e-30f ? 0 : most / 32512;
        int32_t dot = 0, all = 0;
        for (int64_t j = k; j < k + group; j++) {
            const int q = (int)rintf(x[j] * inverse);
            dot += q * (form ? form->values[parts.code[j % weights]] : ((const struct block_q8_0 *)(const void *)block)->q[j % QK]);
            all += q;
        }
        const int64_t g = k % weights / group;
        if (k % 256 == 0) total += sum, sum = 0;
        sum = fmaf(parts.d * (float)parts.scale[g], step * (float)dot, sum);
        if (form && form->mins) sum = fmaf(-parts.dmin * (float)parts.min[g], step * (float)all, sum);
    }
    return total + sum;
}

static void check_products(enum dtype d, int64_t n, int64_t M, int64_t K, bool loaded) {
    struct weight w = weight_open(d, M, K, 11, loaded);
    float *x = noise(n * K, 12), *xs = sent(x, (size_t)(n * K) * sizeof(float)), *out = sent(NULL, (size_t)(n * M) * sizeof(float));
    float *got = mem_array((size_t)(n * M), sizeof *got, "products");
    cuda()->matmul(&(struct matmul_args){tensor_f32(out, n, M), tensor_f32(xs, n, K), w.device, 0, false, PRECISION_F32});
    cuda()->download(got, out, (size_t)(n * M) * sizeof(float));
    for (int64_t i = 0; i < n; i += n > 8 ? 7 : 1)
        for (int64_t m = 0; m < M; m++) {
            const float want = product_of(d, (unsigned char *)w.host.data + (size_t)m * w.host.row_bytes, x + i * K, K);
            cr_assert(memcmp(&want, &got[i * M + m], sizeof want) == 0, "%s n %d M %d K %d: %.9g expected in (%d,%d), %.9g found", dtype_row(d)->name,
                      (int)n, (int)M, (int)K, want, (int)i, (int)m, got[i * M + m]);
        }
    mem_free(x), mem_free(got), cuda()->free(xs), cuda()->free(out);
    weight_close(&w);
}
Test(cuda_blocks, products_have_the_bits_of_the_formula) {
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (!is_block((enum dtype)d)) continue;
        const bool small = dtype_row((enum dtype)d)->block_weights == QK;
        for (int loaded = 0; loaded <= 1; loaded++) {
            check_products((enum dtype)d, 3, 19, small ? 416 : 512, loaded);
            check_products((enum dtype)d, 6, 35, small ? 1120 : 1280, loaded);
            check_products((enum dtype)d, 99, 21, small ? 672 : 768, loaded);
        }
    }
    // More columns than few rows take in one round: 48 KB by 64, 256 and 512 outputs of blocks of 256.
    check_products(DTYPE_Q4_K, 2, 3, 200 * 256, true);
    check_products(DTYPE_Q6_K, 7, 3, 50 * 256, true);
    check_products(DTYPE_Q4_1, 14, 3, 27 * 256 + 32, true);
}

static void check_experts(enum dtype d, const int32_t *start, int experts, int64_t M, int64_t K, enum precision precision, bool loaded) {
    enum { MOST = 4 };
    const int64_t n = start[experts];
    struct weight w[MOST];
    struct tensor on_device[MOST];
    cr_assert(experts <= MOST);
    for (int e = 0; e < experts; e++) w[e] = weight_open(d, M, K, 20 + (uint64_t)e, loaded), on_device[e] = w[e].device;
    float *x = noise(n * K, 30), *xs = sent(x, (size_t)(n * K) * sizeof(float));
    float *out = sent(NULL, (size_t)(n * M) * sizeof(float)), *alone = sent(NULL, (size_t)(n * M) * sizeof(float));
    float *got = mem_array((size_t)(n * M), sizeof *got, "products"), *want = mem_array((size_t)(n * M), sizeof *want, "products");
    int32_t *starts = sent(start, (size_t)(experts + 1) * sizeof *start);
    cuda()->matmul_experts(&(struct matmul_experts_args){tensor_f32(out, n, M), tensor_f32(xs, n, K), on_device, starts, experts, 1, precision});
    for (int e = 0; e < experts; e++) {
        const int64_t rows = start[e + 1] - start[e];
        if (rows == 0) continue;
        const struct tensor part = tensor_rows(tensor_f32(alone, n, M), start[e], rows), of = tensor_rows(tensor_f32(xs, n, K), start[e], rows);
        cuda()->matmul(&(struct matmul_args){part, of, on_device[e], 0, false, precision});
    }
    cuda()->download(got, out, (size_t)(n * M) * sizeof(float));
    cuda()->download(want, alone, (size_t)(n * M) * sizeof(float));
    for (int64_t i = 0; i < n * M; i++)
        cr_assert(memcmp(&want[i], &got[i], sizeof want[i]) == 0, "%s, %d rows, precision %d: %.9g expected in (%d,%d), %.9g found", dtype_row(d)->name, (int)n,
                  (int)precision, want[i], (int)(i / M), (int)(i % M), got[i]);
    mem_free(x), mem_free(got), mem_free(want);
    cuda()->free(xs), cuda()->free(out), cuda()->free(alone), cuda()->free(starts);
    for (int e = 0; e < experts; e++) weight_close(&w[e]);
}
Test(cuda_blocks, rows_of_experts_have_the_bits_of_matmul) {
    static const int32_t few[] = {0, 3, 3, 4, 9}, some[] = {0, 0, 21, 52}, many[] = {0, 195, 201};
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (!is_block((enum dtype)d)) continue;
        const int64_t K = dtype_row((enum dtype)d)->block_weights == QK ? 352 : 512;
        for (int p = PRECISION_F32; p <= PRECISION_BF16; p++) {
            check_experts((enum dtype)d, few, 4, 18, K, (enum precision)p, true);
            check_experts((enum dtype)d, some, 3, 18, K, (enum precision)p, false);
            check_experts((enum dtype)d, many, 2, 35, K, (enum precision)p, true);
        }
    }
}
