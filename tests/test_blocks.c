// test_blocks.c: block formats: what they hold, what quantizing costs, and that every way of multiplying them agrees.
#include "backend.h"
#include "core/blocks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype kinds[] = {
#define KIND(upper, lower) DTYPE_##upper,
    BLOCK_DTYPES(KIND)};

// ---------------------------------------------------------------------------------------------------------------
// Goldens of the gguf package (make_block_goldens.py): generator and hash are repeated here.

static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

enum { BLOCKS = 1000, PARTS = 10 };

static unsigned char *golden_blocks(enum dtype d) {
    const struct dtype_row *row = dtype_row(d);
    size_t n = (size_t)(BLOCKS * row->block_bytes);
    unsigned char *raw = malloc(n);
    for (size_t i = 0; i < n; i++)
        raw[i] = (unsigned char)(mix(i + ((uint64_t)row->gguf_type << 40)) >> 56);
    memset(raw, 0, (size_t)row->block_bytes);
    memset(raw + row->block_bytes, 255, (size_t)row->block_bytes);
    return raw;
}

static void golden_weights(enum dtype d, float *x) {
    const struct dtype_row *row = dtype_row(d);
    for (int64_t i = 0; i < (int64_t)BLOCKS * row->block_weights; i++) {
        uint64_t r = mix((uint64_t)i + ((uint64_t)row->gguf_type << 40) + ((uint64_t)1 << 60));
        int64_t total = -131072, block = i / row->block_weights;
        for (int s = 0; s < 64; s += 16) total += (int64_t)(r >> s & 65535);
        x[i] = (float)total * ldexpf(1, (int)-(block % 24));
        if (block == 7) x[i] = 0;
        if (block == 8) x[i] = -3.25f;
    }
}

// Ten hashes of a line "WAY NAME ...".
static void golden_line(const char *way, const char *name, uint64_t to[PARTS]) {
    struct text all = {0};
    struct err err;
    char start[32];
    cr_assert(file_read_all("tests/golden/blocks.txt", 1 << 16, &all, &err), "%s", err.text);
    snprintf(start, sizeof start, "\n%s %s ", way, name);
    const char *at = strstr(all.data, start);
    cr_assert(at, "no line for %s %s", way, name);
    char *next = (char *)(uintptr_t)(at + strlen(start));
    for (int i = 0; i < PARTS; i++) to[i] = strtoull(next, &next, 16);
    text_free(&all);
}

Test(blocks, read_what_the_gguf_package_reads_bit_for_bit) {
    enum dtype all[COUNT_OF(kinds) + 2] = {DTYPE_Q8_0, DTYPE_Q4_0};
    memcpy(all + 2, kinds, sizeof kinds);
    float *x = malloc(sizeof *x * BLOCKS * BLOCK_MOST);
    for (size_t k = 0; k < COUNT_OF(all); k++) {
        const struct dtype_row *row = dtype_row(all[k]);
        unsigned char *raw = golden_blocks(all[k]);
        uint64_t expected[PARTS];
        golden_line("read", row->name, expected);
        row->to_f32(raw, x, (int64_t)BLOCKS * row->block_weights);
        const int64_t part = (int64_t)BLOCKS / PARTS * row->block_weights;
        for (int p = 0; p < PARTS; p++) {
            uint64_t hash = 0;
            for (int64_t i = 0; i < part; i++) {
                uint32_t word;
                memcpy(&word, &x[p * part + i], sizeof word);
                if (isnan(x[p * part + i])) word = 0x7FC00000;
                hash += mix(((uint64_t)i << 32) + word);
            }
            cr_expect_eq(hash, expected[p], "%s, blocks from %d", row->name, p * BLOCKS / PARTS);
        }
        free(raw);
    }
    free(x);
}

Test(blocks, simple_quantizers_write_the_bytes_of_the_reference) {
    static const enum dtype simple[] = {DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,
                                        DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_MXFP4};
    static float x[BLOCKS * QK];
    static unsigned char raw[BLOCKS * 34];
    for (size_t k = 0; k < COUNT_OF(simple); k++) {
        const struct dtype_row *row = dtype_row(simple[k]);
        uint64_t expected[PARTS];
        golden_line("write", row->name, expected);
        golden_weights(simple[k], x);
        row->from_f32(x, raw, (int64_t)BLOCKS * QK);
        const size_t part = (size_t)(BLOCKS / PARTS * row->block_bytes);
        for (size_t p = 0; p < PARTS; p++) {
            uint64_t hash = 0;
            for (size_t i = 0; i < part; i++) hash += mix((i << 32) + raw[p * part + i]);
            cr_expect_eq(hash, expected[p], "%s, blocks from %zu", row->name, p * BLOCKS / PARTS);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Quantizing.

static double rmse(enum dtype d, const float *x, int64_t n, const float *importance) {
    size_t bytes = 0;
    cr_assert(dtype_row_bytes(d, n, &bytes));
    void *raw = malloc(bytes);
    float *y = malloc((size_t)n * sizeof *y);
    dtype_quantize(d, x, raw, n, importance);
    dtype_row(d)->to_f32(raw, y, n);
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        const double w = importance ? (double)importance[i] : 1, off = (double)y[i] - (double)x[i];
        error += w * off * off;
        size += w * (double)x[i] * (double)x[i];
    }
    free(raw), free(y);
    return sqrt(error / size);
}

enum { NORMALS = 1 << 15, MORE_NORMALS = 1 << 17 };
static void normals(float *x, int n, uint64_t seed) {
    for (int i = 0; i < n; i++) x[i] = (float)rng_normal(seed, 0, (uint64_t)i);
}

Test(blocks, quantizing_normals_costs_no_more_than_llama_cpp) {
    // Relative RMSE of ggml_quantize_chunk without importance on 2^20 normal numbers, within sampling noise.
    static const struct {
        enum dtype dtype;
        double theirs;
    } rows[] = {{DTYPE_Q4_1, .07826},   {DTYPE_Q5_0, .04270},   {DTYPE_Q5_1, .03785},
                {DTYPE_Q2_K, .29672},   {DTYPE_Q3_K, .15098},   {DTYPE_Q4_K, .07137},
                {DTYPE_Q5_K, .03613},   {DTYPE_Q6_K, .01775},   {DTYPE_IQ4_NL, .07618},
                {DTYPE_IQ4_XS, .07677}, {DTYPE_MXFP4, .11520}};
    static float x[MORE_NORMALS];
    normals(x, MORE_NORMALS, 21);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const double ours = rmse(rows[i].dtype, x, MORE_NORMALS, NULL);
        cr_expect_lt(ours, 1.005 * rows[i].theirs, "%s: %.5f against %.5f",
                     dtype_row(rows[i].dtype)->name, ours, rows[i].theirs);
        cr_expect_gt(ours, 0.7 * rows[i].theirs, "%s: %.5f is too good to be true",
                     dtype_row(rows[i].dtype)->name, ours);
    }
}

Test(blocks, importance_moves_the_error_to_where_it_counts_less) {
    static float x[NORMALS], importance[NORMALS], one[NORMALS];
    normals(x, NORMALS, 22);
    for (int i = 0; i < NORMALS; i++) {
        importance[i] = (float)exp(2 * rng_normal(23, 0, (uint64_t)i));
        one[i] = 2.5f;
    }
    for (size_t k = 0; k <= COUNT_OF(kinds); k++) {
        const enum dtype d = k < COUNT_OF(kinds) ? kinds[k] : DTYPE_Q4_0;
        size_t bytes = 0;
        cr_assert(dtype_row_bytes(d, NORMALS, &bytes));
        unsigned char *raw = malloc(bytes);
        float *y = malloc(sizeof x);
        dtype_row(d)->from_f32(x, raw, NORMALS);
        dtype_row(d)->to_f32(raw, y, NORMALS);
        double error = 0, size = 0;
        for (int i = 0; i < NORMALS; i++) {
            error += (double)importance[i] * ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
            size += (double)importance[i] * x[i] * x[i];
        }
        const double blind = sqrt(error / size), seeing = rmse(d, x, NORMALS, importance);
        cr_expect_lt(seeing, 0.97 * blind, "%s: %.5f without, %.5f with importance",
                     dtype_row(d)->name, blind, seeing);
        cr_expect_leq(rmse(d, x, NORMALS, one), 1.0001 * rmse(d, x, NORMALS, NULL), "%s",
                      dtype_row(d)->name);
        free(raw), free(y);
    }
}

Test(blocks, parts_join_to_the_block_they_were_split_from) {
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        const struct dtype_row *row = dtype_row(kinds[k]);
        const struct block_form *form = block_form(kinds[k]);
        cr_assert(form && form->weights == row->block_weights);
        unsigned char *raw = golden_blocks(kinds[k]), again[256];
        for (int b = 0; b < BLOCKS; b++) {
            const unsigned char *from = raw + b * row->block_bytes;
            struct block_parts parts;
            form->split(from, &parts);
            if (isnan(parts.d) || isnan(parts.dmin)) continue; // a NaN keeps no payload
            for (int g = 0; g < form->weights / form->group; g++) {
                cr_assert(parts.scale[g] >= form->least && parts.scale[g] <= form->most);
                cr_assert(parts.min[g] <= form->most_min || !form->mins);
            }
            form->join(&parts, again);
            cr_assert_arr_eq(from, again, (size_t)row->block_bytes, "%s block %d", row->name, b);
        }
        free(raw);
    }
}

Test(blocks, simple_quantizers_give_their_own_values_back) {
    // The largest magnitude is exact in these, so what was quantized once stays.
    static const enum dtype simple[] = {DTYPE_Q5_0, DTYPE_MXFP4};
    static float x[NORMALS], y[NORMALS];
    static unsigned char once[NORMALS], again[NORMALS];
    normals(x, NORMALS, 24);
    for (size_t k = 0; k < COUNT_OF(simple); k++) {
        const struct dtype_row *row = dtype_row(simple[k]);
        size_t bytes = 0;
        cr_assert(dtype_row_bytes(simple[k], NORMALS, &bytes));
        row->from_f32(x, once, NORMALS);
        row->to_f32(once, y, NORMALS);
        row->from_f32(y, again, NORMALS);
        cr_assert_arr_eq(once, again, bytes, "%s", row->name);
    }
}

Test(blocks, values_of_a_block_can_be_found_again) {
    // Searched formats may choose other parts, but not worse values: what is representable stays, nearly.
    static float x[NORMALS], y[NORMALS];
    static unsigned char raw[NORMALS * 2];
    normals(x, NORMALS, 25);
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        const struct dtype_row *row = dtype_row(kinds[k]);
        row->from_f32(x, raw, NORMALS);
        row->to_f32(raw, y, NORMALS);
        const double first = rmse(kinds[k], x, NORMALS, NULL),
                     second = rmse(kinds[k], y, NORMALS, NULL);
        cr_expect_lt(second, 0.25 * first, "%s: %.5f then %.5f", row->name, first, second);
    }
}

Test(blocks, odd_numbers_are_quantized_without_harm) {
    static const float odd[] = {0,     -0.0f,  1e-45f, -1e-38f, 1e30f,  -3e38f,
                                65504, 70000,  NAN,    INFINITY, -INFINITY};
    float x[BLOCK_MOST], y[BLOCK_MOST], importance[BLOCK_MOST];
    unsigned char raw[BLOCK_MOST * 2];
    for (size_t k = 0; k < COUNT_OF(kinds); k++)
        for (size_t f = 0; f < COUNT_OF(odd); f++)
            for (int way = 0; way < 3; way++) {
                const struct dtype_row *row = dtype_row(kinds[k]);
                for (int j = 0; j < BLOCK_MOST; j++) {
                    x[j] = way == 0 || j % 5 == 1 ? odd[f] : (float)j / 64;
                    importance[j] = j % 3 ? (float)j : j % 2 ? 0 : NAN;
                }
                dtype_quantize(kinds[k], x, raw, BLOCK_MOST, way == 2 ? importance : NULL);
                row->to_f32(raw, y, BLOCK_MOST); // codes in range: a sanitizer would say
                for (int j = 0; j < BLOCK_MOST && fabsf(odd[f]) < 1e-30f; j++)
                    cr_assert(fabsf(y[j] - x[j]) < 1.5f, "%s of %g", row->name, (double)odd[f]);
            }
}

Test(blocks, a_nan_counts_as_zero) {
    static float x[NORMALS], y[NORMALS];
    unsigned char a[NORMALS], b[NORMALS];
    normals(x, NORMALS, 26);
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        size_t bytes = 0;
        cr_assert(dtype_row_bytes(kinds[k], 2048, &bytes));
        memcpy(y, x, sizeof x);
        for (int j = 3; j < 2048; j += 50) x[j] = NAN, y[j] = 0;
        dtype_row(kinds[k])->from_f32(x, a, 2048);
        dtype_row(kinds[k])->from_f32(y, b, 2048);
        cr_assert_arr_eq(a, b, bytes, "%s", dtype_row(kinds[k])->name);
    }
}

Test(blocks, rows_that_do_not_divide_get_a_format_that_does) {
    static const struct {
        enum dtype wanted;
        int64_t cols;
        enum dtype got;
    } rows[] = {{DTYPE_Q4_K, 512, DTYPE_Q4_K},   {DTYPE_Q4_K, 640, DTYPE_Q5_0},
                {DTYPE_Q5_K, 96, DTYPE_Q5_1},    {DTYPE_Q6_K, 576, DTYPE_Q8_0},
                {DTYPE_Q2_K, 32, DTYPE_Q4_0},    {DTYPE_IQ4_XS, 64, DTYPE_IQ4_NL},
                {DTYPE_Q4_K, 33, DTYPE_F16},     {DTYPE_Q4_1, 96, DTYPE_Q4_1},
                {DTYPE_MXFP4, 48, DTYPE_F16},    {DTYPE_F32, 7, DTYPE_F32},
                {DTYPE_BF16, 7, DTYPE_BF16}};
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(dtype_that_divides(rows[i].wanted, rows[i].cols), rows[i].got, "%s of %d",
                     dtype_row(rows[i].wanted)->name, (int)rows[i].cols);
}

// ---------------------------------------------------------------------------------------------------------------
// Multiplying: the product is that of the weights a block holds with x in sixteen bits (backend.h), to the rounding of
// f32 sums of groups; its bits do not depend on how many rows there are, nor on how the weights lie.

static const char *const level_names[] = {"plain", "avx2", "avx512", "amx", "neon", "dotprod", "i8mm"};

static bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

// What one output is and how far f32 may be from it: a rounding of each group's part and of each sum, 2^-24 of what is
// added up; group by group codes and mins are added apart, so the size of a part is that of its two terms.
static double product_of(const float *x, const float *w, int K, double *bound) {
    double sum = 0, size = 0;
    for (int i = 0; i < K; i += 32) {
        float most = 0;
        double largest = 0, length = 0;
        for (int j = i; j < i + 32; j++) most = fmaxf(most, fabsf(x[j]));
        for (int j = i; j < i + 32; j++) {
            const double rounded = (double)most / 32512 * rint((double)(x[j] * (32512 / most)));
            sum += rounded * w[j];
            largest = fmax(largest, fabs((double)w[j])), length += fabs(rounded);
        }
        size += largest * length;
    }
    *bound = 4 * size * ldexp(1, -24) * sqrt(K / 16.0);
    return sum;
}

static void check_products(const struct backend *b, const char *level, enum dtype d) {
    enum { N = 11, M = 70, K = 768 };
    static float x[N * K], full[M * K], meaning[N * M], out[N * M], rows[4 * K];
    const int32_t ids[4] = {0, 69, 31, 32};
    const struct dtype_row *row = dtype_row(d);
    size_t row_bytes = 0;
    cr_assert(dtype_row_bytes(d, K, &row_bytes));
    // Any bytes are a block; d's without infinity and NaN, whose products mean nothing.
    unsigned char *raw = golden_blocks(d);
    raw = realloc(raw, M * row_bytes + (size_t)(BLOCKS * row->block_bytes));
    cr_assert(raw);
    for (size_t i = 0, n = 0; i < M * row_bytes; i += (size_t)row->block_bytes) {
        float y[BLOCK_MOST];
        bool fine = false;
        while (!fine) {
            for (int j = 0; j < row->block_bytes; j++)
                raw[i + (size_t)j] = (unsigned char)(mix(n++ + ((uint64_t)d << 32)) >> 56);
            if (d == DTYPE_MXFP4) raw[i] = (unsigned char)(120 + raw[i] % 10);
            row->to_f32(raw + i, y, row->block_weights);
            fine = true;
            for (int j = 0; j < row->block_weights; j++) fine = fine && isfinite(y[j]);
        }
    }
    for (int i = 0; i < N * K; i++) x[i] = (float)(2 * rng_uniform(5, d, (uint64_t)i) - 1);
    row->to_f32(raw, full, M * K);
    const struct tensor xs = tensor_f32(x, N, K), ws = {raw, d, LAYOUT_ROWS, 1, M, K, row_bytes};
    struct tensor packed;
    bool owned;
    struct err err;
    cr_assert(b->weight_load(&packed, &ws, &owned, &err), "%s", err.text);
    b->matmul(&(struct matmul_args){.out = tensor_f32(meaning, N, M), .x = xs, .w = packed});
    for (int i = 0; i < N * M; i++) {
        double bound, exact = product_of(x + i / M * K, full + i % M * K, K, &bound);
        cr_assert(fabs(meaning[i] - exact) <= bound, "%s %s: value %d is %.9g, not %.9g", level,
                  row->name, i, (double)meaning[i], exact);
    }
    for (int at = 0, n = 1; at < N + 20; at += n, n = n % 8 + 1) { // 1, 2, ... 8 rows at a time
        const int lo = at % N, count = lo + n > N ? N - lo : n;
        memset(out, 0xAA, sizeof out);
        b->matmul(&(struct matmul_args){.out = tensor_f32(out, count, M),
                                        .x = tensor_rows(xs, lo, count),
                                        .w = at % 3 ? packed : ws});
        for (int i = 0; i < count * M; i++)
            cr_assert(same(out[i], meaning[lo * M + i]), "%s %s: %d rows at %d: %.9g, not %.9g",
                      level, row->name, count, lo, (double)out[i], (double)meaning[lo * M + i]);
    }
    b->embed(&(struct embed_args){.out = tensor_f32(rows, 4, K), .table = packed, .ids = ids});
    for (int i = 0; i < 4 * K; i++)
        cr_assert(same(rows[i], full[ids[i / K] * K + i % K]), "%s %s: row %d column %d: %.9g",
                  level, row->name, ids[i / K], i % K, (double)rows[i]);
    if (owned) b->free(packed.data);
    free(raw);
}

static void check_level(int l) {
    struct err err;
    const struct backend *b = backend_cpu(level_names[l], &err);
    if (!b) return; // said by a test of its own
    pool_start(2);
    for (size_t k = 0; k < COUNT_OF(kinds); k++) check_products(b, level_names[l], kinds[k]);
}
Test(blocks, products_equal_those_of_their_values_plain) { check_level(0); }
Test(blocks, products_equal_those_of_their_values_avx2) { check_level(1); }
Test(blocks, products_equal_those_of_their_values_avx512) { check_level(2); }
Test(blocks, products_equal_those_of_their_values_amx) { check_level(3); }
Test(blocks, products_equal_those_of_their_values_neon) { check_level(4); }
Test(blocks, products_equal_those_of_their_values_dotprod) { check_level(5); }
Test(blocks, products_equal_those_of_their_values_i8mm) { check_level(6); }
