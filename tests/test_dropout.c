// test_dropout.c: the holes of dropout are those of a fair coin, and the same on every level.
//
// Each statistic is a z score or a chi-squared with its degrees of freedom, seeds are fixed and the bounds are 5 deviations: a
// right generator fails one of these 80 for one seed in some 10^4. The same statistics are shown generators that are broken on
// purpose, as a key without the row would be, and must refuse them.
#include "backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 512, COLS = 384, BELOW = 13107 }; // a fifth

// Which numbers of a block of rows are dropped: [ROWS][COLS] of 0 and 1.
typedef void holes_of(uint64_t seed, uint64_t place, int64_t row, unsigned char *to);

static const struct backend *backend;
static void holes(uint64_t seed, uint64_t place, int64_t row, unsigned char *to) {
    static float ones[COLS * ROWS], out[COLS * ROWS];
    for (size_t i = 0; i < COUNT_OF(ones); i++) ones[i] = 1;
    struct dropout_args a = {tensor_f32(out, ROWS, COLS), {0}, tensor_f32(ones, ROWS, COLS), 1, {seed, place, row, BELOW}};
    backend->dropout(&a);
    for (size_t i = 0; i < COUNT_OF(ones); i++) {
        to[i] = out[i] == 0;
        cr_assert(out[i] == 0 || out[i] == 65536.f / (65536 - BELOW));
    }
}

// Broken: every row alike; every place alike; a plain linear congruence along the row.
static void without_row(uint64_t seed, uint64_t place, int64_t row, unsigned char *to) {
    (void)row;
    holes(seed, place, 0, to);
    for (int64_t i = 1; i < ROWS; i++) memcpy(to + i * COLS, to, COLS);
}
static void without_place(uint64_t seed, uint64_t place, int64_t row, unsigned char *to) {
    (void)place;
    holes(seed, 0, row, to);
}
static void congruent(uint64_t seed, uint64_t place, int64_t row, unsigned char *to) {
    for (int64_t i = 0; i < ROWS; i++) {
        struct rng_row key = rng_row(seed, place, (uint64_t)(row + i));
        for (uint32_t c = 0; c < COLS; c++) to[i * COLS + c] = ((key.a + c * 0x9E3779B9u) >> 16) < BELOW;
    }
}

// Deviations of the number of coincidences of a[i] and b[i], n fair coins that know nothing of each other.
static double together(const unsigned char *a, const unsigned char *b, int64_t n) {
    const double p = BELOW / 65536.0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - p) * (b[i] - p);
    return sum / (p * (1 - p) * sqrt((double)n));
}

// Deviations of a chi-squared of the sums of `groups` groups of n coins each.
static double even(const double *sums, int64_t groups, double n) {
    const double p = BELOW / 65536.0;
    double chi = 0;
    for (int64_t g = 0; g < groups; g++) chi += (sums[g] - n * p) * (sums[g] - n * p) / (n * p * (1 - p));
    return (chi - (double)groups) / sqrt(2 * (double)groups);
}

static void note(double z, double *worst, const char **where, const char *name) {
    if (fabs(z) > *worst) *worst = fabs(z), *where = name;
}

// The worst of all statistics of a generator, in deviations, and which.
static double worst_of(holes_of *make, const char **where) {
    static unsigned char a[ROWS * COLS], b[ROWS * COLS];
    const double p = BELOW / 65536.0;
    const int64_t n = ROWS * COLS;
    double worst = 0, by_row[ROWS] = {0}, by_col[COLS] = {0}, all = 0;
    make(1, 2, 3, a);
    for (int64_t i = 0; i < n; i++) all += a[i], by_row[i / COLS] += a[i], by_col[i % COLS] += a[i];
    note((all - (double)n * p) / sqrt((double)n * p * (1 - p)), &worst, where, "share");
    note(even(by_row, ROWS, COLS), &worst, where, "shares of rows");
    note(even(by_col, COLS, ROWS), &worst, where, "shares of columns");
    // Runs along a row: eight neighbours as a number of 8 bits, 256 bins by how likely each is.
    double seen[256] = {0}, chi = 0;
    for (int64_t i = 0; i < n; i += 8) {
        int bits = 0;
        for (int k = 0; k < 8; k++) bits |= a[i + k] << k;
        seen[bits]++;
    }
    for (int bits = 0; bits < 256; bits++) {
        double likely = (double)n / 8;
        for (int k = 0; k < 8; k++) likely *= bits >> k & 1 ? p : 1 - p;
        chi += (seen[bits] - likely) * (seen[bits] - likely) / likely;
    }
    // Rare bins: the variance is 2 (k - 1) + (sum of 1 / likelihood - k^2 - 2k + 2) / n (Cochran 1952).
    const double variance = 2 * 255 + (pow(1 / p + 1 / (1 - p), 8) - 256 * 256 - 2 * 256 + 2) / ((double)n / 8);
    note((chi - 255) / sqrt(variance), &worst, where, "eight neighbours");
    for (int64_t lag = 1; lag <= 64; lag++) {
        note(together(a, a + lag, n - lag), &worst, where, "neighbouring columns");
        if (lag < 8) note(together(a, a + lag * COLS, n - lag * COLS), &worst, where, "neighbouring rows");
    }
    static const struct { uint64_t seed, place; int64_t row; const char *name; } other[] = {
        {2, 2, 3, "seeds"}, {1, 3, 3, "layers"}, {1, 5, 3, "layers"}, {1, 2, 3 + ROWS, "steps"},
        {1, 2, 3 + ((int64_t)1 << 32), "rows 2^32 apart"}, {1, 2 + ((uint64_t)1 << 32), 3, "places 2^32 apart"}};
    for (size_t i = 0; i < COUNT_OF(other); i++) {
        make(other[i].seed, other[i].place, other[i].row, b);
        note(together(a, b, n), &worst, where, other[i].name);
    }
    return worst;
}

Test(dropout, holes_are_those_of_a_fair_coin) {
    struct err err;
    const char *where = "";
    pool_start(1);
    backend = backend_cpu(NULL, &err);
    double worst = worst_of(holes, &where);
    cr_log_info("the worst of all: %.2f deviations, %s", worst, where);
    cr_assert(worst < 5, "%s: %g deviations", where, worst);
    static const struct { holes_of *make; const char *name; } broken[] = {
        {without_row, "without the row"}, {without_place, "without the place"}, {congruent, "not mixed"}};
    for (size_t i = 0; i < COUNT_OF(broken); i++)
        cr_assert(worst_of(broken[i].make, &where) > 10, "a generator %s passes", broken[i].name);
}

// Not only who is dropped: the sums too, to the last bit.
Test(dropout, every_level_gives_the_same_bits) {
    enum { N = 40, C = 387 };
    static const char *const names[] = {"plain", "avx2", "avx512", "amx", "neon"};
    static float x[N * C], y[N * C], out[2][N * C];
    struct err err;
    pool_start(2);
    for (int i = 0; i < N * C; i++) x[i] = (float)rng_normal(1, 1, (uint64_t)i), y[i] = (float)rng_normal(1, 2, (uint64_t)i);
    for (size_t l = 0; l < COUNT_OF(names); l++) {
        const struct backend *b = backend_cpu(names[l], &err);
        if (!b) continue;
        struct dropout_args a = {tensor_f32(out[l > 0], N, C), tensor_f32(x, N, C), tensor_f32(y, N, C), .22f, {7, 8, 9, 6554}};
        b->dropout(&a);
        cr_assert(l == 0 || memcmp(out[0], out[1], sizeof out[0]) == 0, "%s", names[l]);
    }
}

// Known answers, made once by other lines than these, so that a run that goes on elsewhere has the holes that it had.
Test(dropout, words_are_those_of_the_first_version) {
    static const uint32_t expected[8] = {54759, 21087, 24494, 21994, 20307, 5443, 30998, 29963};
    const struct rng_row row = rng_row(1, 2, 3);
    for (uint32_t i = 0; i < 8; i++) cr_expect_eq(rng_row_at(row, i * 9), expected[i], "%u: %u", i * 9, rng_row_at(row, i * 9));
}
