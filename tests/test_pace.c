// test_pace.c: how far to guess ahead, in worlds whose costs and chances are known.
//
// A world says what passes and guesses cost and how often guesses hold; a clock that only counts stands for the machine, with its
// noise. The pace is held against the best fixed length of each world, which it is not told.
#include "gen/spec.h"

#include <criterion/criterion.h>

enum { LONGEST = 15 };

struct world {
    const char *name;
    double row, bend;    // T(n) = 1 + row * (n - 1) up to 8 rows, bend * row for each beyond
    double guess;        // seconds of a guess, in T(1); 0: nothing
    double likely, high, low; // a share of the guesses holds with the chance `high`, the others with `low`
    double honest;       // the drafter's own word: this share of the true chance, the rest is 0.6
    double turns;        // tokens after which nothing holds any more; 0: never
    int noise;           // 1: the drafter's own word says nothing; 2: but another one does
};
static const struct world worlds[] = {
    {"wide memory, good draft", 0.02, 1, 0.08, 0.7, 0.95, 0.3, 1, 0, 0},
    {"wide memory, poor draft", 0.02, 1, 0.1, 0.3, 0.8, 0.1, 1, 0, 0},
    {"a processor, good draft", 0.22, 0.6, 0.08, 0.7, 0.95, 0.3, 1, 0, 0},
    {"a processor, fair draft that lies", 0.22, 0.6, 0.1, 0.5, 0.8, 0.4, 0, 0, 0},
    {"a processor, poor draft", 0.25, 0.7, 0.15, 0.2, 0.5, 0.05, 0.5, 0, 0},
    {"every row costs", 0.9, 1, 0.1, 0.8, 0.9, 0.5, 1, 0, 0},
    {"dear draft", 0.1, 1, 0.8, 0.8, 0.9, 0.5, 1, 0, 0},
    {"n-grams that repeat", 0.22, 0.6, 0, 0.9, 0.99, 0.1, 1, 0, 0},
    {"n-grams of prose", 0.22, 0.6, 0, 0.1, 0.8, 0.1, 1, 0, 0},
    {"n-grams of noise", 0.22, 0.6, 0, 0, 0, 0.02, 0, 0, 0},
};

struct sim {
    const struct world *w;
    uint64_t seed, drawn;
    double now, tokens;
};

static double uniform(struct sim *s) { return rng_uniform(s->seed, 9, s->drawn++); }

// One in thirty takes three times as long, the others a tenth more or less.
static double noisy(struct sim *s, double x) { return x * (uniform(s) < 1. / 30 ? 3 : 0.9 + 0.2 * uniform(s)); }

static double cost_of(const struct world *w, int n) {
    double cost = 1;
    for (int i = 2; i <= n; i++) cost += i <= 8 ? w->row : w->row * w->bend;
    return cost;
}

static double true_chance(struct sim *s) {
    double c = uniform(s) < s->w->likely ? s->w->high : s->w->low;
    return s->w->turns > 0 && s->tokens > s->w->turns ? 0 : c;
}

// A pass of k guesses with these chances: how many held.
static int judge(struct sim *s, int k, const double *chance) {
    int held = 0;
    while (held < k && uniform(s) < chance[held]) held++;
    s->tokens += held + 1;
    return held;
}

static double fixed_speed(const struct world *w, int k, double tokens, uint64_t seed) {
    struct sim s = {w, seed, 0, 0, 0};
    double chance[LONGEST];
    while (s.tokens < tokens) {
        for (int i = 0; i < k; i++) chance[i] = true_chance(&s);
        s.now += noisy(&s, w->guess * k) + noisy(&s, cost_of(w, k + 1));
        judge(&s, k, chance);
    }
    return s.tokens / s.now;
}

// The words of a guess of such a chance; others than the first say nothing unless the world has them.
static void say(struct sim *s, double chance, float *words) {
    const struct world *w = s->w;
    for (int k = 0; k < PREDICTORS; k++) words[k] = -1;
    words[BY_CONFIDENCE] = (float)(w->honest * chance + (1 - w->honest) * 0.6);
    if (w->noise > 0) words[BY_CONFIDENCE] = (float)uniform(s);
    if (w->noise > 1) words[BY_ENTROPY] = (float)(0.3 + 0.4 * chance); // orders them, is wrong about each
}

// What spec.c does with a pace, without models.
static void step(struct sim *s, struct pace *p) {
    const struct world *w = s->w;
    double chance[LONGEST], start = s->now;
    float own[LONGEST][PREDICTORS];
    struct pace_chain c = {.most = LONGEST, .reach = 1};
    bool more = pace_may_guess(p);
    if (more && w->guess > 0) pace_ahead(p, 0, &c, &more);
    while (more && c.n < LONGEST) {
        chance[c.n] = true_chance(s);
        say(s, chance[c.n], own[c.n]);
        if (w->guess > 0) s->now += noisy(s, w->guess);
        c.reach *= pace_chance(p, 0, own[c.n++]);
        c.sum += c.reach;
        c.seconds = s->now - start;
        if (w->guess > 0) pace_ahead(p, 0, &c, &more);
    }
    if (c.n) pace_drafted(p, 0, c.n, s->now - start);
    for (int i = 0; i < c.n; i++) pace_made(p, 0, own[i]);
    int keep = 0;
    double best = c.n || pace_may_guess(p) ? pace_value(p, 0, 1) : 0, sum = 0, reach = 1;
    for (int i = 0; i < c.n; i++) {
        sum += reach *= pace_chance(p, 0, own[i]);
        if (pace_value(p, sum, i + 2) > best) best = pace_value(p, sum, i + 2), keep = i + 1;
    }
    double took = noisy(s, cost_of(w, keep + 1));
    s->now += took;
    if (keep) pace_judged(p, keep + 1, took);
    else pace_plain(p, took);
    int held = judge(s, keep, chance);
    for (int i = 0; i < keep && i <= held; i++) pace_told(p, 0, own[i], i < held);
    for (int i = 0; i <= held; i++) pace_token(p, i < held);
}

static double paced_speed(const struct world *w, double from, double tokens, uint64_t seed) {
    struct sim s = {w, seed, 0, 0, 0};
    struct pace p;
    double start = 0;
    pace_open(&p, 1, &w->guess);
    while (s.tokens < from) step(&s, &p);
    start = s.now, from = s.tokens;
    while (s.tokens < tokens) step(&s, &p);
    return (s.tokens - from) / (s.now - start);
}

static double mean_speed(const struct world *w, int k, double from, double tokens, int runs) {
    double sum = 0;
    for (int i = 0; i < runs; i++) sum += k < 0 ? paced_speed(w, from, tokens, (uint64_t)i) : fixed_speed(w, k, tokens, (uint64_t)i);
    return sum / runs;
}

Test(pace, comes_near_the_best_fixed_length_of_every_world) {
    static const int lengths[] = {0, 1, 2, 3, 4, 6, 8, 15};
    for (size_t i = 0; i < COUNT_OF(worlds); i++) {
        double best = 0, paced = mean_speed(&worlds[i], -1, 0, 3000, 6);
        int at = 0;
        for (size_t k = 0; k < COUNT_OF(lengths); k++) {
            double speed = mean_speed(&worlds[i], lengths[k], 0, 3000, 6);
            if (speed > best) best = speed, at = lengths[k];
        }
        cr_expect(paced > 0.95 * best, "%s: %.3f, the best fixed length, %d, %.3f", worlds[i].name, paced, at, best);
    }
}

Test(pace, a_short_text_loses_little_to_trying) {
    for (size_t i = 0; i < COUNT_OF(worlds); i++) {
        double plain = mean_speed(&worlds[i], 0, 0, 128, 60), paced = mean_speed(&worlds[i], -1, 0, 128, 60);
        cr_expect(paced > 0.94 * plain, "%s: 128 tokens at %.3f of plain", worlds[i].name, paced / plain);
    }
}

Test(pace, what_turns_bad_is_dropped) {
    struct world w = worlds[2];
    w.turns = 600;
    double plain = mean_speed(&w, 0, 0, 128, 60), after = mean_speed(&w, -1, 600, 800, 60);
    cr_expect(after > 0.95 * plain, "200 tokens behind the turn at %.3f of plain", after / plain);
}

// Where the drafter's own word is noise and another predictor's is not, that one is chosen, and is worth having. So is the drafter's
// own where the other says nothing.
Test(pace, the_better_predictor_is_chosen_and_worth_it) {
    struct world blind = worlds[2], told = worlds[2];
    blind.noise = 1, told.noise = 2;
    for (int i = 0; i < 2; i++) {
        struct sim s = {i ? &worlds[2] : &told, 3, 0, 0, 0};
        struct pace p;
        float words[PREDICTORS] = {0.5f, 0.5f, -1, -1};
        pace_open(&p, 1, &s.w->guess);
        while (s.tokens < 1000) {
            step(&s, &p);
            if (s.tokens < 300) continue;
            cr_assert_eq(pace_predictor(&p, 0, words), i ? BY_CONFIDENCE : BY_ENTROPY, "world %d at token %g: %.3f and %.3f", i, s.tokens,
                         pace_error(&p, 0, BY_CONFIDENCE), pace_error(&p, 0, BY_ENTROPY));
        }
    }
    double without = mean_speed(&blind, -1, 0, 3000, 6), with = mean_speed(&told, -1, 0, 3000, 6), own = mean_speed(&worlds[2], -1, 0, 3000, 6);
    cr_expect(with > 1.05 * without, "%.3f without, %.3f with", without, with);
    cr_expect(with > 0.97 * own, "%.3f by another, %.3f by the drafter's own", with, own);
}
