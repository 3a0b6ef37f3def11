// Learning-rate schedules: published check values (methods A.1 and A.3), continuity, order, independence of the
// horizon.
#include "learn/learn.h"

#include <criterion/criterion.h>
#include <math.h>

static struct schedule power_of(double beta) {
    return (struct schedule){.kind = schedule_find("power"),
                             .lr = 0.02,
                             .total = 1e13,
                             .power_a = 4,
                             .power_b = -0.51,
                             .power_c = 0.5,
                             .batch = beta * 4096};
}

static struct schedule any(const char *kind, const char *shape) {
    return (struct schedule){.kind = schedule_find(kind),
                             .lr = 0.01,
                             .total = 1e6,
                             .warmup = 1e5,
                             .decay = 2e5,
                             .shape = decay_find(shape),
                             .final = 0.1,
                             .power_a = 4,
                             .power_b = -0.51,
                             .power_c = 0.5,
                             .phi = 1,
                             .cool = 3e5,
                             .hold = 0.5,
                             .batch = 4096};
}

Test(schedule, power_matches_the_table_of_check_values) {
    static const struct {
        double beta, leaves, at[5];
    } rows[] = {
        {64, 1.13e8, {.0200, .00658, .00203, .00063, .00019}},
        {256, 1.71e9, {.0200, .0200, .00813, .00251, .00078}},
        {1024, 2.60e10, {.0200, .0200, .0200, .01005, .00311}},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct schedule s = power_of(rows[i].beta);
        for (int k = 0; k < 5; k++)
            cr_expect_float_eq(schedule_lr(&s, pow(10, 8 + k)), rows[i].at[k], 0.51e-5,
                               "beta %g, 1e%d tokens: %g", rows[i].beta, 8 + k,
                               schedule_lr(&s, pow(10, 8 + k)));
        cr_expect_eq(schedule_lr(&s, rows[i].leaves * 0.99), 0.02, "the cap holds until %g",
                     rows[i].leaves);
        cr_expect_lt(schedule_lr(&s, rows[i].leaves * 1.01), 0.02, "the cap is left at %g",
                     rows[i].leaves);
    }
    struct schedule paper = power_of(1024);
    paper.power_a = 4.6, paper.total = 1e14;
    cr_expect_float_eq(schedule_lr(&paper, 1e13), 0.001104, 1e-6);
}

Test(schedule, power_slope_is_minus_051_and_doubles_with_the_batch) {
    struct schedule s = power_of(64), twice = power_of(128);
    for (double n = 1e9; n < 1e12; n *= 3) {
        double slope = (log(schedule_lr(&s, n * 2)) - log(schedule_lr(&s, n))) / log(2);
        cr_expect_float_eq(slope, -0.51, 1e-9, "slope %g at %g", slope, n);
        cr_expect_float_eq(schedule_lr(&twice, n) / schedule_lr(&s, n), 2, 1e-12, "at %g", n);
    }
    s.power_a = 0.001, s.power_b = -0.3;
    cr_expect_float_eq((log(schedule_lr(&s, 1e12)) - log(schedule_lr(&s, 5e11))) / log(2), -0.3,
                       1e-9);
}

Test(schedule, below_64k_tokens_power_goes_by_the_root_of_the_batch) {
    struct schedule least = power_of(16), small = power_of(1), plain = power_of(1);
    plain.power_c = 1;
    for (double n = 1e8; n < 1e12; n *= 10) {
        cr_expect_float_eq(schedule_lr(&small, n) / schedule_lr(&least, n), 0.25, 1e-12, "at %g", n);
        cr_expect_float_eq(schedule_lr(&plain, n) / schedule_lr(&least, n), 1. / 16, 1e-12, "at %g", n);
    }
}

// A run behind `seen` tokens has the rates of one long run, with a warmup up to them; rows that are no law of the tokens do not
// look at it.
Test(schedule, what_was_seen_before_counts_where_tokens_do) {
    struct schedule s = power_of(64), long_one = power_of(64);
    s.seen = 3e9, s.total = 2e9, s.decay = 0, long_one.total = 5e9, long_one.decay = 0;
    for (double n = s.warmup; n < 2e9; n += 1e8) cr_expect_float_eq(schedule_lr(&s, n), schedule_lr(&long_one, n + 3e9), 1e-12);
    s.warmup = 1e8;
    double top = schedule_lr(&long_one, 3.1e9);
    cr_expect_float_eq(schedule_lr(&s, 5e7 - s.batch), top / 2, top * 1e-9);
    for (int i = 0; i < schedule_count; i++) {
        struct schedule a = {.kind = &schedules[i], .lr = 0.01, .total = 1e9, .batch = 4096, .power_a = 4, .power_b = -0.51, .phi = 1, .hold = 0.5, .cool = 1e8}, b = a;
        b.seen = 2e8;
        bool counts = strcmp(a.kind->name, "power") == 0 || strcmp(a.kind->name, "infinite") == 0;
        cr_expect((schedule_lr(&a, 5e7) != schedule_lr(&b, 5e7)) == counts, "%s", a.kind->name);
        if (strcmp(a.kind->name, "infinite") == 0) cr_expect_float_eq(schedule_lr(&b, 0), 0.005, 1e-12, "on the level");
    }
}

Test(schedule, power_warms_up_to_the_curve_not_to_the_cap) {
    struct schedule s = power_of(64);
    s.warmup = 4e9;
    double top = 64 * 4 * pow(4e9, -0.51);
    cr_assert_lt(top, 0.02);
    cr_expect_float_eq(schedule_lr(&s, 2e9 - s.batch), top / 2, top * 1e-9);
    cr_expect_float_eq(schedule_lr(&s, 4e9), top, top * 1e-12);
    cr_expect_float_eq(schedule_lr(&s, 4e9 - s.batch), top, top * 1e-12);
    cr_expect_lt(schedule_lr(&s, 5e9), top);
}

Test(schedule, shapes_go_from_one_to_final_without_rising) {
    static const double finals[] = {0, 0.1, 0.5, 1};
    for (int i = 0; i < decay_count; i++)
        for (size_t k = 0; k < COUNT_OF(finals); k++) {
            const struct schedule s = {.final = finals[k], .phi = 1};
            double final = finals[k], before = 2;
            cr_expect_float_eq(decays[i].factor(0, &s), 1, 1e-12, "%s to %g", decays[i].name, final);
            cr_expect_float_eq(decays[i].factor(1, &s), final, 1e-12, "%s to %g", decays[i].name,
                               final);
            for (int u = 0; u <= 1000; u++) {
                double f = decays[i].factor(u / 1000.0, &s);
                cr_assert(f <= before + 1e-15, "%s to %g rises at %d/1000", decays[i].name, final,
                          u);
                before = f;
            }
        }
}

Test(schedule, shapes_match_the_table_of_methods) {
    static const struct {
        const char *name;
        double final, mean, at[3], phi;
    } rows[] = {
        {"linear", 0, .5, {.75, .5, .25}, 0},
        {"cosine", 0, .5, {.8536, .5, .1464}, 0},
        {"1-sqrt", 0, 1 / 3.0, {.5, .2929, .1340}, 0},
        {"exponential", 0, .41802, {.6501, .3775, .1653}, 0},
        {"exponential", .1, -.9 / -2.302585, {.56234, .31623, .17783}, 0},
        {"affine", 0, .41802, {.6501, .3775, .1653}, 0},
        {"affine", .1, .1 + .9 * .41802, {.6851, .4398, .2488}, 0},
        {"rex", 0, .61371, {.8571, .6667, .4}, 0},
        {"uba", 0, NAN, {.9589, .8, .4070}, .5},
        {"uba", 0, NAN, {.9210, .6667, .2555}, 1},
        {"uba", 0, .5, {.8536, .5, .1464}, 2},
        {"uba", 0, NAN, {.6998, .2857, .0642}, 5},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct decay_row *row = decay_find(rows[i].name);
        const struct schedule s = {.final = rows[i].final, .phi = rows[i].phi};
        double sum = 0;
        for (int k = 0; k < 3; k++)
            cr_expect_float_eq(row->factor(.25 * (k + 1), &s), rows[i].at[k], 6e-5,
                               "%s at %g", rows[i].name, .25 * (k + 1));
        for (int k = 0; k < 100000; k++) sum += row->factor((k + .5) / 100000, &s);
        if (isfinite(rows[i].mean)) cr_expect_float_eq(sum / 100000, rows[i].mean, 1e-4, "mean of %s: %g", rows[i].name,
                           sum / 100000);
    }
}

Test(schedule, is_continuous_everywhere) {
    for (int i = 0; i < schedule_count; i++)
        for (int d = 0; d < decay_count; d++) {
            struct schedule s = any(schedules[i].name, decays[d].name);
            s.batch =
                1; // fine steps: no jump may be larger than the steepest slope, the square root's at its start
            s.power_a = 4 * 4096;
            double before = schedule_lr(&s, 0);
            for (double n = 1; n < 1.1e6; n++) {
                double lr = schedule_lr(&s, n);
                cr_assert(fabs(lr - before) < 0.01 * 0.0025, "%s, %s: jump of %g at %g",
                          schedules[i].name, decays[d].name, lr - before, n);
                before = lr;
            }
        }
}

Test(schedule, ends_at_final_and_stays_there) {
    for (int i = 0; i < schedule_count; i++) {
        struct schedule s = any(schedules[i].name, "linear");
        double top = s.kind->curve ? schedule_lr(&s, s.total - s.decay) : s.lr;
        double expected = s.kind == schedule_find("constant")         ? s.lr
                          : s.kind == schedule_find("linear-to-zero") ? 0
                                                                      : 0.1 * top;
        cr_expect_float_eq(schedule_lr(&s, s.total), expected, 1e-15, "%s", schedules[i].name);
        cr_expect_float_eq(schedule_lr(&s, s.total * 3), expected, 1e-15, "%s", schedules[i].name);
    }
}

Test(schedule, does_not_know_the_total_before_the_decay) {
    static const char *const names[] = {"power", "wsd", "infinite", "inverse-sqrt", "constant"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct schedule s = any(names[i], "linear"), longer = s, endless = s;
        longer.total *= 50;
        endless.total = INFINITY;
        for (double n = 0; n < s.total - s.decay; n += 4096) {
            cr_assert_eq(schedule_lr(&s, n), schedule_lr(&longer, n), "%s at %g", names[i], n);
            cr_assert_eq(schedule_lr(&s, n), schedule_lr(&endless, n), "%s at %g", names[i], n);
        }
        if (s.kind->curve) cr_expect_lt(schedule_lr(&s, 9e5), schedule_lr(&longer, 9e5));
    }
}

Test(schedule, inverse_sqrt_halves_in_four_times_the_tokens) {
    struct schedule s = any("inverse-sqrt", "linear");
    s.decay = 0;
    cr_expect_float_eq(schedule_lr(&s, 1e5), 0.01, 1e-15, "the warmup ends at the peak");
    cr_expect_float_eq(schedule_lr(&s, 4e5), 0.005, 1e-15);
    s.warmup = 0;
    cr_expect_eq(schedule_lr(&s, 0), 0.01);
    cr_expect_float_eq(schedule_lr(&s, 4 * 4096), 0.005, 1e-15, "from the first batch on");
}

Test(schedule, infinite_falls_once_and_stays_level) {
    struct schedule s = any("infinite", "linear");
    cr_expect_float_eq(schedule_lr(&s, 1e5), 0.01, 1e-15);
    cr_expect_float_eq(schedule_lr(&s, 2.5e5), 0.0075, 1e-15, "half way of the cosine");
    cr_expect_float_eq(schedule_lr(&s, 4e5), 0.005, 1e-15);
    cr_expect_float_eq(schedule_lr(&s, 8e5 - 1), 0.005, 1e-15);
    cr_expect_float_eq(schedule_lr(&s, 9e5), 0.005 * 0.55, 1e-15, "half way of the decay to a tenth");
}

Test(schedule, loses_neither_the_first_nor_the_last_step) {
    struct schedule s = any("wsd", "linear");
    s.final = 0;
    s.batch = 1e4;
    cr_expect_float_eq(schedule_lr(&s, 0), 0.01 * 0.1, 1e-15, "first of ten warmup steps");
    cr_expect_float_eq(schedule_lr(&s, 8e5), 0.01, 1e-15, "first decay step");
    cr_expect_float_eq(schedule_lr(&s, 1e6 - 1e4), 0.01 / 20, 1e-15, "last of twenty decay steps");
}

Test(schedule, warmup_of_nothing_and_of_everything) {
    for (int i = 0; i < schedule_count; i++) {
        struct schedule s = any(schedules[i].name, "cosine");
        s.warmup = 0;
        cr_expect_eq(schedule_lr(&s, 0), 0.01, "%s without warmup begins at the peak, not %g",
                     schedules[i].name, schedule_lr(&s, 0));
        static const double warmups[] = {1e6, 5e6};
        for (int k = 0; k < 2; k++) {
            s = any(schedules[i].name, "cosine");
            s.warmup = warmups[k];
            double before = 0;
            for (double n = 0; n + s.batch < s.total; n += 4096) {
                double lr = schedule_lr(&s, n);
                cr_assert(isfinite(lr) && lr > before, "%s, warmup %g: %g at %g", schedules[i].name,
                          warmups[k], lr, n);
                before = lr;
            }
            cr_expect(isfinite(schedule_lr(&s, 1e7)));
        }
    }
}

Test(schedule, a_decay_longer_than_the_run_begins_after_the_warmup) {
    struct schedule s = any("wsd", "linear");
    s.decay = 5e6;
    s.final = 0;
    cr_expect_float_eq(schedule_lr(&s, 1e5), 0.01, 1e-15);
    cr_expect_float_eq(schedule_lr(&s, 5.5e5), 0.005, 1e-15);
    cr_expect_float_eq(schedule_lr(&s, 1e6), 0, 1e-15);
}

Test(schedule, names_are_found_or_not) {
    for (int i = 0; i < schedule_count; i++)
        cr_expect_eq(schedule_find(schedules[i].name), &schedules[i]);
    for (int i = 0; i < decay_count; i++) cr_expect_eq(decay_find(decays[i].name), &decays[i]);
    cr_expect_null(schedule_find("powr"));
    cr_expect_null(decay_find(""));
}
