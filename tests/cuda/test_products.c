// test_products.c: products large enough that every engine and every shape of tile of cuda/ has its turn, which the small shapes of
// op_cases.c leave out: long sums, large tiles, many experts. Bit for bit, as backend.h promises.
#include "backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/cuda/place.h"

static const struct backend *cuda(void) { return place_gpu(); }

// A matrix here and on the device.
struct matrix {
    struct tensor here, there;
};
static struct matrix matrix_new(enum dtype d, int64_t rows, int64_t cols, uint64_t seed) {
    struct err err;
    struct matrix m;
    size_t row_bytes;
    cr_assert(dtype_row_bytes(d, cols, &row_bytes));
    m.here = m.there = (struct tensor){NULL, d, LAYOUT_ROWS, 1, rows, cols, row_bytes};
    m.here.data = mem_alloc((size_t)rows * row_bytes, "a matrix");
    float *row = mem_array((size_t)cols, sizeof *row, "a row");
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t c = 0; c < cols; c++) row[c] = (float)rng_below(seed, (uint64_t)i, (uint64_t)c, 2001) / 1000 - 1;
        dtype_row(d)->from_f32(row, (char *)m.here.data + (size_t)i * row_bytes, cols);
    }
    mem_free(row);
    m.there.data = cuda()->alloc((size_t)rows * row_bytes, "a matrix", &err);
    cr_assert(m.there.data);
    cuda()->upload(m.there.data, m.here.data, (size_t)rows * row_bytes);
    return m;
}
static void matrix_free(struct matrix *m) {
    mem_free(m->here.data);
    cuda()->free(m->there.data);
}
static void matrix_fetch(struct matrix *m) {
    cuda()->download(m->here.data, m->there.data, (size_t)m->here.rows * m->here.row_bytes);
}
static const char *row_of(const struct matrix *m, int64_t i) { return (const char *)m->here.data + (size_t)i * m->here.row_bytes; }

// The sum as backend.h has it.
static float chains(const float *x, const float *w, int64_t K) {
    float sum = 0;
    for (int64_t from = 0; from < K; from += 256) {
        float chain = 0;
        for (int64_t k = from; k < K && k < from + 256; k++) chain = fmaf(x[k], w[k], chain);
        sum += chain;
    }
    return sum;
}

TestSuite(cuda_products, .timeout = 120);

Test(cuda_products, have_the_chains_of_the_contract) {
    enum { M = 37, MOST = 70 };
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const int64_t Ks[] = {4500, 4360}, ns[] = {1, 2, 3, 7, 19, MOST}; // rows of 4360 may be read 16 bytes at a time
    for (size_t d = 0; d < COUNT_OF(dtypes); d++)
        for (size_t k = 0; k < COUNT_OF(Ks); k++) {
            const int64_t K = Ks[k];
            struct matrix x = matrix_new(DTYPE_F32, MOST, K, 1), w = matrix_new(dtypes[d], M, K, 2);
            struct matrix out = matrix_new(DTYPE_F32, MOST, M, 3);
            float *want = mem_array(MOST * M, sizeof *want, "sums"), *row = mem_array((size_t)K, sizeof *row, "a row");
            for (int64_t m = 0; m < M; m++) {
                dtype_row(dtypes[d])->to_f32(row_of(&w, m), row, K);
                for (int64_t i = 0; i < MOST; i++) want[i * M + m] = chains((const float *)(const void *)row_of(&x, i), row, K);
            }
            for (size_t n = 0; n < COUNT_OF(ns); n++) {
                cuda()->matmul(&(struct matmul_args){tensor_rows(out.there, 0, ns[n]), tensor_rows(x.there, 0, ns[n]), w.there,
                                                     1, false, PRECISION_F32});
                matrix_fetch(&out);
                cr_expect(memcmp(out.here.data, want, (size_t)(ns[n] * M) * sizeof *want) == 0, "%s K %d n %d",
                          dtype_row(dtypes[d])->name, (int)K, (int)ns[n]);
            }
            mem_free(want), mem_free(row);
            matrix_free(&x), matrix_free(&w), matrix_free(&out);
        }
}

// Rows [at, at + n) of a product of its own have the bits that they have in the whole one.
enum which { FORWARD, BACK };
static void product(enum which which, struct tensor out, struct tensor x, struct tensor w) {
    if (which == FORWARD) cuda()->matmul(&(struct matmul_args){out, x, w, 1, false, PRECISION_BF16});
    else cuda()->matmul_dx(&(struct matmul_dx_args){out, x, w, 1, false, PRECISION_BF16});
}
static void round_alike(void) {
    enum { N = 256, COLS = 512, K = 136 };
    static const int64_t parts[][2] = {{0, 1}, {100, 20}, {150, 70}, {255, 1}};
    for (int which = FORWARD; which <= BACK; which++) {
        struct matrix x = matrix_new(DTYPE_F32, N, K, 1);
        struct matrix out = matrix_new(DTYPE_F32, N, COLS, 3), part = matrix_new(DTYPE_F32, N, COLS, 3);
        struct matrix w = which == FORWARD ? matrix_new(DTYPE_BF16, COLS, K, 2) : matrix_new(DTYPE_BF16, K, COLS, 2);
        product((enum which)which, out.there, x.there, w.there);
        matrix_fetch(&out);
        for (size_t p = 0; p < COUNT_OF(parts); p++) {
            const int64_t at = parts[p][0], n = parts[p][1];
            product((enum which)which, tensor_rows(part.there, 0, n), tensor_rows(x.there, at, n), w.there);
            matrix_fetch(&part);
            cr_expect(memcmp(part.here.data, row_of(&out, at), (size_t)n * out.here.row_bytes) == 0, "%d: %d rows from %d on",
                      which, (int)n, (int)at);
        }
        matrix_free(&x), matrix_free(&w), matrix_free(&out), matrix_free(&part);
    }
}
Test(cuda_products, round_alike_whatever_the_tile) { round_alike(); }

// More experts than one launch takes, some with no row and one with many; each has the bits of a product of its own.
static void experts_agree(enum precision precision, int64_t experts, int64_t each, int64_t last) {
    enum { M = 24, K = 40 };
    const int64_t n = (experts / 2 - 1) * each + last;
    struct matrix x = matrix_new(DTYPE_F32, n, K, 1), w = matrix_new(DTYPE_BF16, experts * M, K, 2);
    struct matrix out = matrix_new(DTYPE_F32, n, M, 3), own = matrix_new(DTYPE_F32, n, M, 3);
    struct tensor *of = mem_array((size_t)experts, sizeof *of, "experts");
    int32_t *start = mem_array((size_t)experts + 1, sizeof *start, "starts");
    struct err err;
    start[0] = 0;
    for (int64_t e = 0; e < experts; e++) {
        of[e] = tensor_rows(w.there, e * M, M);
        start[e + 1] = start[e] + (int32_t)(e % 2 == 0 ? 0 : e == experts - 1 ? last : each); // every other one has none
    }
    cr_assert_eq(start[experts], n);
    int32_t *there = cuda()->alloc((size_t)(experts + 1) * sizeof *start, "starts", &err);
    cuda()->upload(there, start, (size_t)(experts + 1) * sizeof *start);
    cuda()->matmul_experts(&(struct matmul_experts_args){out.there, x.there, of, there, experts, 1, precision});
    for (int64_t e = 0; e < experts; e++) {
        const int64_t rows = start[e + 1] - start[e];
        cuda()->matmul(&(struct matmul_args){tensor_rows(own.there, start[e], rows), tensor_rows(x.there, start[e], rows), of[e],
                                             1, false, precision});
    }
    matrix_fetch(&out), matrix_fetch(&own);
    cr_expect(memcmp(out.here.data, own.here.data, (size_t)n * out.here.row_bytes) == 0, "precision %d, %d experts", precision,
              (int)experts);
    cuda()->free(there);
    mem_free(of), mem_free(start);
    matrix_free(&x), matrix_free(&w), matrix_free(&out), matrix_free(&own);
}
Test(cuda_products, of_experts_are_those_of_matmul) {
    for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++) {
        experts_agree((enum precision)precision, 300, 1, 5);
        experts_agree((enum precision)precision, 6, 20, 130);
        experts_agree((enum precision)precision, 4, 90, 300);
    }
}

// Gradients of experts, with large tiles, too.
static void experts_backward_agree(enum precision precision) {
    enum { M = 264, K = 136, EXPERTS = 2, S = 2 };
    static const int32_t start[] = {0, 70, 130, 200, 260}; // of each expert's segments
    struct err err;
    int32_t *there = cuda()->alloc(sizeof start, "starts", &err);
    cuda()->upload(there, start, sizeof start);
    struct matrix x = matrix_new(DTYPE_F32, 260, K, 1), dout = matrix_new(DTYPE_F32, 260, M, 2);
    struct matrix w = matrix_new(DTYPE_BF16, EXPERTS * M, K, 3);
    struct matrix dx = matrix_new(DTYPE_F32, 260, K, 4), own_dx = matrix_new(DTYPE_F32, 260, K, 4);
    struct matrix dw = matrix_new(DTYPE_F32, EXPERTS * M, K, 5), own = matrix_new(DTYPE_F32, EXPERTS * M, K, 5);
    const struct tensor of[EXPERTS] = {tensor_rows(w.there, 0, M), tensor_rows(w.there, M, M)};
    cuda()->matmul_experts_dx(&(struct matmul_experts_dx_args){dx.there, dout.there, of, there, EXPERTS, S, false,
                                                               precision});
    cuda()->matmul_experts_dw(&(struct matmul_experts_dw_args){dw.there, dout.there, x.there, there, EXPERTS, S,
                                                               precision, false});
    for (int e = 0; e < EXPERTS; e++) {
        const int64_t at = start[e * S], n = start[(e + 1) * S] - at;
        cuda()->matmul_dx(&(struct matmul_dx_args){tensor_rows(own_dx.there, at, n), tensor_rows(dout.there, at, n), of[e],
                                                   1, false, precision});
        for (int s = 0; s < S; s++) {
            const int64_t from = start[e * S + s], rows = start[e * S + s + 1] - from;
            cuda()->matmul_dw(&(struct matmul_dw_args){tensor_rows(own.there, e * M, M), tensor_rows(dout.there, from, rows),
                                                       tensor_rows(x.there, from, rows), 1, rows,
                                                       precision, false});
        }
    }
    matrix_fetch(&dx), matrix_fetch(&own_dx), matrix_fetch(&dw), matrix_fetch(&own);
    cr_expect(memcmp(dx.here.data, own_dx.here.data, 260 * dx.here.row_bytes) == 0, "dx, precision %d", precision);
    cr_expect(memcmp(dw.here.data, own.here.data, EXPERTS * M * dw.here.row_bytes) == 0, "dw, precision %d", precision);
    matrix_free(&dw), matrix_free(&own);
    matrix_free(&x), matrix_free(&dout), matrix_free(&w), matrix_free(&dx), matrix_free(&own_dx);
    cuda()->free(there);
}
Test(cuda_products, of_experts_backward_are_those_of_matmul) {
    experts_backward_agree(PRECISION_F32);
    experts_backward_agree(PRECISION_BF16);
}

// Rule 2 rests on what no manual says: that wgmma gives a sum the same bits whatever the number of columns. A GPU that has it tells
// here, and one that does not keep to it fails here, and multiplies by mma.
static bool reports(const char *words) {
    struct text line = {0};
    cuda()->report(&line);
    const bool there = strstr(line.data, words);
    text_free(&line);
    return there;
}
Test(cuda_products, by_wgmma_have_the_same_bits_with_every_tile) {
    if (!reports("compute capability 9.")) return;
    cr_expect(cuda_wgmma_agrees(cuda()));
    cr_expect(reports("bf16 products by wgmma"), "this GPU has it, and it is not used");
}
#ifdef CUDA_ON_CPU
// The same promises on a GPU without it.
Test(cuda_products, by_mma_round_alike_whatever_the_tile) {
    on_cpu_wgmma(false);
    cr_expect(reports("bf16 products by mma"));
    round_alike();
}
Test(cuda_products, by_mma_of_experts_are_those_of_matmul) {
    on_cpu_wgmma(false);
    experts_agree(PRECISION_BF16, 6, 20, 130);
    experts_backward_agree(PRECISION_BF16);
}
#endif
