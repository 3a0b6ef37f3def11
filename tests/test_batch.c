// The gradient's noise on gradients whose noise is known, and the rules that choose a batch by it.
#include "learn/learn.h"

#include <criterion/criterion.h>
#include <math.h>

enum { DIMS = 40 };

// Squared norms of the mean over the first b of B draws of G + N(0, sigma^2), and over all: sums of draws are normal too.
static void draw(uint64_t seed, double b, double B, double size, double sigma, double *small, double *large) {
    static uint64_t drawn;
    double g = size / sqrt(DIMS);
    *small = *large = 0;
    for (int i = 0; i < DIMS; i++) {
        double first = b * g + sigma * sqrt(b) * rng_normal(seed, 0, drawn++);
        double rest = (B - b) * g + sigma * sqrt(B - b) * rng_normal(seed, 0, drawn++);
        *small += first / b * (first / b);
        *large += (first + rest) / B * ((first + rest) / B);
    }
}

Test(batch, noise_scale_of_known_gradients_within_5_percent) {
    static const struct {
        int b, B;
        double size, sigma;
    } rows[] = {{1, 8, 1, 1}, {4, 16, 2, 1}, {2, 64, .5, .25}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        double expected = DIMS * rows[i].sigma * rows[i].sigma / (rows[i].size * rows[i].size), mean = 0;
        struct noise z = {0};
        enum { STEPS = 10000 };
        for (int k = 0; k < STEPS; k++) {
            double small, large;
            draw(i, rows[i].b, rows[i].B, rows[i].size, rows[i].sigma, &small, &large);
            noise_add(&z, rows[i].b, small, rows[i].B, large);
            if (k >= 100) mean += noise_scale(&z) / (STEPS - 100); // the scale itself goes on moving
        }
        cr_expect_float_eq(mean, expected, 0.05 * expected, "row %zu: %g, expected %g", i, mean, expected);
    }
}

Test(batch, noise_is_unknown_at_first_and_passes_over_what_is_not_finite) {
    struct noise z = {0};
    cr_expect(isnan(noise_scale(&z)));
    for (int i = 0; i < 9; i++) noise_add(&z, 1, 3, 4, 1.5);
    noise_add(&z, 1, INFINITY, 4, 1);
    noise_add(&z, 1, 2, 4, NAN);
    cr_expect(isnan(noise_scale(&z)), "nine steps");
    noise_add(&z, 1, 3, 4, 1.5);
    cr_expect_float_eq(noise_scale(&z), 2 / 1.0, 1e-12, "%g", noise_scale(&z));
    struct noise none = {.signal = -1, .trace = 1, .steps = 50};
    cr_expect(isnan(noise_scale(&none)), "no signal was seen");
}

static struct batch_rule rule(const char *name) {
    return (struct batch_rule){.kind = batch_rule_find(name), .least = 256, .most = 8192, .ramp = 1e6, .theta = 0.5, .T = 128};
}

Test(batch, rules_give_whole_sequences_between_their_ends_and_never_shrink) {
    for (int i = 0; i < batch_rule_count; i++) {
        struct batch_rule r = rule(batch_rules[i].name);
        int64_t before = 0;
        for (double n = 0; n < 1e9; n += 1e5) {
            int64_t batch = batch_next(&r, n);
            cr_assert(batch % 128 == 0 && batch >= 256 && batch <= 8192 && batch >= before, "%s at %g: %lld", batch_rules[i].name,
                      n, (long long)batch);
            before = batch;
        }
    }
}

Test(batch, ramp_and_critical_follow_their_lines) {
    struct batch_rule r = rule("ramp");
    cr_expect_eq(batch_next(&r, 0), 256);
    cr_expect_eq(batch_next(&r, 5e5), 4224);
    cr_expect_eq(batch_next(&r, 1e6), 8192);
    cr_expect_eq(batch_next(&r, 1e12), 8192);
    struct batch_rule c = rule("critical");
    c.most = 1 << 20;
    cr_expect_eq(batch_next(&c, 0), 256);
    cr_expect_float_eq(step_law_batch(1e9), 8.0e4, 0.05e4, "%g", step_law_batch(1e9)); // methods A.4
    cr_expect_float_eq(step_law_batch(1e10), 2.98e5, 0.01e5);
    cr_expect_float_eq((double)batch_next(&c, 1e9), step_law_batch(1e9), 128, "%g", step_law_batch(1e9));
}

// The noise is S / |G|^2 = 40 * 4: the batch must settle at 160 / theta^2 tokens.
Test(batch, adaptive_converges_to_its_fixed_point) {
    struct batch_rule r = rule("adaptive");
    r.T = 1, r.least = 8, r.most = 1e6;
    int64_t batch = 0;
    for (int k = 0; k < 3000; k++) {
        double small, large;
        batch = batch_next(&r, k);
        draw(3, (double)(batch / 8), (double)batch, 1, 2, &small, &large);
        noise_add(&r.noise, (double)(batch / 8), small, (double)batch, large);
    }
    // It never shrinks, so it settles at the highest average it was judged by.
    cr_expect(batch > 0.95 * 640 && batch < 1.1 * 640, "%lld", (long long)batch);
}

Test(batch, rates_follow_the_batch_by_their_rule) {
    cr_expect_eq(batch_lr_rule_find("none")->factor(4, 1, NAN), 1);
    cr_expect_eq(batch_lr_rule_find("sqrt")->factor(4, 1, NAN), 2);
    cr_expect_eq(batch_lr_rule_find("linear")->factor(4, 1, NAN), 4);
    const struct batch_lr_row *surge = batch_lr_rule_find("surge");
    cr_expect_eq(surge->factor(4, 1, NAN), 2, "the root while the noise is unknown");
    cr_expect_float_eq(surge->factor(4, 1, 1e9), 2, 1e-6, "the root far below the noise");
    cr_expect_float_eq(surge->factor(1e6, 1e3, 1e3), 2 / (sqrt(1e-3) + sqrt(1e3)), 1e-12);
    for (double B = 1; B < 1e6; B *= 1.3)
        cr_expect_leq(surge->factor(B, 100, 1000), surge->factor(1000, 100, 1000) + 1e-12, "highest at the noise scale");
    for (int i = 0; i < batch_lr_rule_count; i++) cr_expect_float_eq(batch_lr_rules[i].factor(7, 7, 3), 1, 1e-12);
    cr_expect_null(batch_lr_rule_find("cube"));
    cr_expect_null(batch_rule_find(""));
}
