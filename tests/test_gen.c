// test_gen.c: the sampler draws what it says it draws.
//
// Distributions are held to a chi-squared bound whose false-alarm rate is one in a million per test (Wilson-Hilferty
// quantile, z = 4.75), and each such test also runs a control that must fail, so the bound is shown to have teeth.
#include "gen/gen.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double critical(double df) {
    double a = 2 / (9 * df);
    return df * pow(1 - a + 4.75 * sqrt(a), 3);
}

// Cells with an expectation below 5 are pooled with the likeliest one. A cell that cannot be drawn must not be.
static double chi_squared(const long *seen, const double *p, int cells, long draws, double *df) {
    double sum = 0, pool_seen = 0, pool_p = 0;
    int most = 0, used = 1;
    for (int i = 1; i < cells; i++)
        if (p[i] > p[most]) most = i;
    for (int i = 0; i < cells; i++) {
        double expected = p[i] * (double)draws;
        if (p[i] == 0 && seen[i]) sum = INFINITY;
        if (i == most || expected < 5) {
            pool_seen += (double)seen[i];
            pool_p += p[i];
            continue;
        }
        sum += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
        used++;
    }
    double expected = pool_p * (double)draws;
    *df = used > 1 ? used - 1 : 1;
    return sum + (pool_seen - expected) * (pool_seen - expected) / expected;
}

static void fill_logits(float *logits, int V, uint64_t seed) {
    for (int i = 0; i < V; i++) logits[i] = (float)(1.5 * rng_normal(seed, 7, (uint64_t)i));
}

static struct sampler_options plain(double temp) {
    struct sampler_options o = sampler_defaults;
    o.temp = temp;
    o.top_k = 0;
    o.top_p = 1;
    o.min_p = 0;
    o.seed = 11;
    return o;
}

static void draw_counts(const struct sampler_options *o, const float *logits, int V, long draws, long *seen) {
    struct err err;
    struct sampler *s = sampler_new(o, V);
    for (long i = 0; i < draws; i++) {
        int32_t id = sampler_pick(s, logits, i, &err);
        cr_assert(id >= 0 && id < V);
        seen[id]++;
    }
    sampler_free(s);
}

static void softmax_of(const float *logits, int V, double temp, double *p) {
    double sum = 0;
    for (int i = 0; i < V; i++) sum += p[i] = exp(logits[i] / temp);
    for (int i = 0; i < V; i++) p[i] /= sum;
}

Test(sampler, draws_the_softmax_at_every_temperature) {
    enum { V = 24 };
    const double temps[] = {0.3, 0.7, 1, 1.5, 5};
    const long draws = 60000;
    for (size_t k = 0; k < COUNT_OF(temps); k++) {
        float logits[V];
        double p[V], wrong[V], df;
        long seen[V] = {0};
        fill_logits(logits, V, k);
        softmax_of(logits, V, temps[k], p);
        softmax_of(logits, V, temps[k] * 1.1, wrong);
        struct sampler_options o = plain(temps[k]);
        draw_counts(&o, logits, V, draws, seen);
        double x = chi_squared(seen, p, V, draws, &df);
        cr_expect(x < critical(df), "temp %g: chi2 %g, bound %g", temps[k], x, critical(df));
        x = chi_squared(seen, wrong, V, draws, &df);
        cr_expect(x > critical(df), "the control passed at temp %g: chi2 %g", temps[k], x);
    }
}

Test(sampler, filters_draw_the_distribution_they_report) {
    enum { V = 40 };
    struct sampler_options cases[6];
    for (size_t i = 0; i < COUNT_OF(cases); i++) cases[i] = plain(0.9);
    cases[0].top_k = 7;
    cases[1].top_p = 0.7;
    cases[2].min_p = 0.1;
    cases[3].typical = 0.6;
    cases[4].repeat_penalty = 1.7, cases[4].presence_penalty = 0.4, cases[4].frequency_penalty = 0.2;
    cases[5] = sampler_defaults, cases[5].seed = 3;
    for (size_t k = 0; k < COUNT_OF(cases); k++) {
        float logits[V];
        double p[V] = {0}, df, mass = 0;
        long seen[V] = {0};
        struct candidate out[V];
        struct err err;
        fill_logits(logits, V, 100 + k);
        struct sampler *s = sampler_new(&cases[k], V);
        for (int i = 0; i < 6; i++) sampler_accept(s, i % 3);
        size_t n = sampler_distribution(s, logits, out);
        for (size_t i = 0; i < n; i++) p[out[i].id] = out[i].p, mass += out[i].p;
        cr_expect(fabs(mass - 1) < 1e-5);
        for (long i = 0; i < 40000; i++) seen[sampler_pick(s, logits, i, &err)]++;
        sampler_free(s);
        double x = chi_squared(seen, p, V, 40000, &df);
        cr_expect(x < critical(df), "case %zu: chi2 %g, bound %g", k, x, critical(df));
        if (k == 0) cr_expect(n == 7);
        if (k == 1 || k == 2 || k == 3) cr_expect(n > 1 && n < V, "case %zu kept %zu", k, n);
    }
}

// What top-p, min-p and typical mean, computed the slow way.
Test(sampler, filters_cut_where_their_definitions_say) {
    enum { V = 30 };
    float logits[V];
    double p[V];
    struct candidate out[V];
    fill_logits(logits, V, 5);
    softmax_of(logits, V, 1, p);
    struct sampler_options o = plain(1);
    o.min_p = 0.2;
    struct sampler *s = sampler_new(&o, V);
    size_t n = sampler_distribution(s, logits, out), expected = 0;
    double most = 0;
    for (int i = 0; i < V; i++) most = fmax(most, p[i]);
    for (int i = 0; i < V; i++) expected += p[i] >= 0.2 * most;
    cr_expect(n == expected, "min-p kept %zu, expected %zu", n, expected);
    sampler_free(s);
    o = plain(1);
    o.top_p = 0.5;
    s = sampler_new(&o, V);
    n = sampler_distribution(s, logits, out);
    double mass = 0;
    for (size_t i = 0; i < n; i++) mass += p[out[i].id];
    cr_expect(mass >= 0.5 && mass - p[out[n - 1].id] < 0.5, "top-p kept a mass of %g", mass);
    sampler_free(s);
}

Test(sampler, positions_draw_independently) {
    enum { V = 6 };
    float logits[V];
    double p[V], joint[V * V], df;
    long seen[V * V] = {0};
    struct err err;
    fill_logits(logits, V, 9);
    softmax_of(logits, V, 1, p);
    for (int i = 0; i < V * V; i++) joint[i] = p[i / V] * p[i % V];
    struct sampler_options o = plain(1);
    struct sampler *s = sampler_new(&o, V);
    int32_t last = sampler_pick(s, logits, 0, &err);
    for (long i = 1; i <= 80000; i++) {
        int32_t id = sampler_pick(s, logits, i, &err);
        if (i % 2) seen[last * V + id]++;
        last = id;
    }
    sampler_free(s);
    double x = chi_squared(seen, joint, V * V, 40000, &df);
    cr_expect(x < critical(df), "chi2 %g, bound %g", x, critical(df));
}

Test(sampler, a_choice_is_a_function_of_seed_position_and_distribution) {
    enum { V = 50 };
    float logits[V], shifted[V];
    struct err err;
    fill_logits(logits, V, 1);
    for (int i = 0; i < V; i++) shifted[i] = logits[i] + 3; // the same distribution
    struct sampler_options o = plain(1), other = plain(1);
    other.seed = 12;
    struct sampler *a = sampler_new(&o, V), *b = sampler_new(&o, V), *c = sampler_new(&other, V);
    int differ = 0, moved = 0;
    for (int i = 499; i >= 0; i--) moved += sampler_pick(b, logits, i, &err) != sampler_pick(b, shifted, i, &err);
    for (int i = 0; i < 500; i++) {
        int32_t x = sampler_pick(a, logits, i, &err);
        cr_expect(x == sampler_pick(b, logits, i, &err));
        differ += x != sampler_pick(c, logits, i, &err);
    }
    cr_expect(differ > 100, "another seed changed only %d of 500 choices", differ);
    cr_expect(moved <= 1, "a constant added to all logits moved %d of 500 choices", moved);
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
}

Test(sampler, greedy_takes_the_lowest_id_of_the_largest_logits) {
    float logits[] = {1, 4, -2, 4, 4};
    struct err err;
    struct sampler_options o = plain(0);
    struct sampler *s = sampler_new(&o, 5);
    for (int i = 0; i < 10; i++) cr_expect(sampler_pick(s, logits, i, &err) == 1);
    sampler_free(s);
}

Test(sampler, damaged_logits_are_refused_with_a_sentence) {
    struct err err = {""};
    struct sampler_options o = plain(1);
    struct sampler *s = sampler_new(&o, 3);
    cr_expect(sampler_pick(s, (float[]){0, NAN, 1}, 0, &err) == -1 && strlen(err.text) > 20);
    err.text[0] = 0;
    cr_expect(sampler_pick(s, (float[]){-INFINITY, -INFINITY, -INFINITY}, 0, &err) == -1 && strlen(err.text) > 20);
    cr_expect(sampler_pick(s, (float[]){-INFINITY, 0, -INFINITY}, 0, &err) == 1);
    sampler_free(s);
    struct sampler_options bad = plain(1);
    bad.temp = NAN;
    cr_expect(!sampler_check(&bad, &err));
    bad = plain(-1);
    cr_expect(!sampler_check(&bad, &err));
    bad = plain(1), bad.top_p = 1.5;
    cr_expect(!sampler_check(&bad, &err));
}

Test(sampler, top_k_equals_sorting_and_cutting) {
    enum { V = 300 };
    float logits[V];
    struct candidate few[V], all[V];
    fill_logits(logits, V, 77);
    for (int i = 0; i < V; i += 3) logits[i] = 0.25f; // many ties
    struct sampler_options o = plain(1);
    struct sampler *s = sampler_new(&o, V);
    sampler_distribution(s, logits, all);
    sampler_free(s);
    for (int64_t k = 1; k < V; k = k * 3 / 2 + 1) {
        o.top_k = k;
        s = sampler_new(&o, V);
        cr_expect(sampler_distribution(s, logits, few) == (size_t)k);
        for (int64_t i = 0; i < k; i++) cr_expect(few[i].id == all[i].id, "k %lld, rank %lld", (long long)k, (long long)i);
        sampler_free(s);
    }
}

Test(sampler, penalties_follow_their_window) {
    enum { V = 4 };
    float logits[V] = {1, 1, 1, 1};
    struct candidate out[V];
    struct sampler_options o = plain(1);
    o.presence_penalty = 2;
    o.repeat_last = 3;
    struct sampler *s = sampler_new(&o, V);
    sampler_accept(s, 0);
    for (int i = 0; i < 3; i++) sampler_accept(s, 1); // 0 leaves the window
    sampler_distribution(s, logits, out);
    cr_expect(out[3].id == 1 && fabsf(out[0].p - out[2].p) < 1e-6f);
    sampler_free(s);
}

Test(sampler, mirostat_holds_the_surprise_near_tau) {
    enum { V = 200 };
    for (int64_t version = 1; version <= 2; version++) {
        float logits[V];
        struct err err;
        double sum = 0;
        struct sampler_options o = plain(1);
        o.mirostat = version;
        o.mirostat_tau = 3;
        struct sampler *s = sampler_new(&o, V);
        for (int i = 0; i < 4000; i++) {
            fill_logits(logits, V, 1000 + (uint64_t)i);
            double p[V];
            softmax_of(logits, V, 1, p);
            int32_t id = sampler_pick(s, logits, i, &err);
            if (i >= 500) sum -= log2(p[id]);
        }
        sampler_free(s);
        cr_expect(fabs(sum / 3500 - 3) < 0.3, "mirostat %lld: mean surprise %g bits", (long long)version, sum / 3500);
    }
}
