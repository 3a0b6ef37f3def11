// test_verify.c: every verifier draws the target's distribution, and accepts what its formula says.
//
// One position: each verifier against target and draft that are random, opposed, equal, disjoint, single tokens, or without some
// tokens. Several positions: texts drawn through trees, whose distributions depend on what came before, against the product of the
// target's. Seeds are fixed, so a run says the same every time; were they not, a right rule would fail a chi-squared test here
// once in a million (tail probability 1e-6), and an acceptance beyond 4 sigma once in 16000. Each kind of test also runs
// rules with one mistake each, and must find them wrong.
#include "gen/spec.h"
#include "transport.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double false_alarm = 1e-6, sigmas = 4;
enum { V_MOST = 64, CHILDREN_MOST = 8, SEED = 20, STREAM = 5 };

// ---- chi-squared

// Probability of a sum of squares beyond x: the incomplete gamma function by its series or its continued fraction
// (Abramowitz and Stegun 6.5.29, 6.5.31).
static double tail(double x, double df) {
    double a = df / 2, z = x / 2, front = exp(a * log(z) - z - lgamma(a));
    if (!(x > 0)) return 1;
    if (isinf(x)) return 0;
    if (z < a + 1) {
        double term = 1 / a, sum = term;
        for (int i = 1; i < 10000 && term > 1e-17 * sum; i++) sum += term *= z / (a + i);
        return 1 - front * sum;
    }
    double b = z + 1 - a, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < 10000; i++) {
        double n = -i * (i - a);
        b += 2;
        d = 1 / (n * d + b);
        c = b + n / c;
        h *= d * c;
        if (fabs(d * c - 1) < 1e-15) break;
    }
    return front * h;
}

// Cells with an expectation below 5 are pooled with the likeliest one. A cell that cannot be drawn must not be.
static double surprise(const long *seen, const double *p, int cells, long draws) {
    double sum = 0, pool_seen = 0, pool_p = 0;
    int most = 0, used = 1;
    for (int i = 1; i < cells; i++)
        if (p[i] > p[most]) most = i;
    for (int i = 0; i < cells; i++) {
        double expected = p[i] * (double)draws, off = (double)seen[i] - expected;
        if (p[i] == 0 && seen[i]) return 0;
        if (i == most || expected < 5) pool_seen += (double)seen[i], pool_p += p[i];
        else sum += off * off / expected, used++;
    }
    double expected = pool_p * (double)draws, off = pool_seen - expected;
    sum += off * off / expected;
    return used > 1 ? tail(sum, used - 1) : 1;
}

Test(verify, tails_of_chi_squared_are_those_of_the_tables) {
    const double known[][3] = {{3.8414588207, 1, .05}, {10.827566170, 1, .001}, {23.928127, 1, 1e-6}, {29.588298445, 10, .001},
                               {3.9402991361, 10, .95}, {149.44925278, 100, .001}, {1143.917, 1000, .001}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        double t = tail(known[i][0], known[i][1]);
        cr_expect(fabs(t / known[i][2] - 1) < 1e-4, "beyond %g of %g: %g, not %g", known[i][0], known[i][1], t, known[i][2]);
    }
}

// ---- one position

enum kind { RANDOM, OPPOSED, P_ZEROS, Q_ZEROS, SAME, DISJOINT, ONE_P, ONE_Q, ONE_BOTH, TWO, KINDS };
static const char *const kind_names[KINDS] = {"random", "opposed", "zeros in p", "zeros in q", "equal", "disjoint",
                                              "one token in p", "one token in q", "one token in each", "two tokens"};

// A target and a draft: as the lists that verifiers see, and dense, with their exact sums.
struct pair {
    int V;
    struct candidate p[V_MOST], q[V_MOST];
    size_t n_p, n_q;
    double dense_p[V_MOST], dense_q[V_MOST];
};

static int32_t id_of(int i) { return 3 * i + 1; } // ids have gaps
static int index_of(int32_t id) { return (id - 1) / 3; }

// Lists are off one by a common factor, as those of floats are.
static size_t list_of(double *dense, int V, double factor, struct candidate *list) {
    double sum = 0;
    size_t n = 0;
    for (int i = 0; i < V; i++) sum += dense[i];
    for (int i = 0; i < V; i++)
        if (dense[i] > 0) list[n++] = (struct candidate){.id = id_of(i), .p = (float)(factor * dense[i] / sum)};
    sum = 0;
    for (size_t k = 0; k < n; k++) sum += (double)list[k].p;
    memset(dense, 0, (size_t)V * sizeof *dense);
    for (size_t k = 0; k < n; k++) dense[index_of(list[k].id)] = (double)list[k].p / sum;
    return n;
}

static void make_pair(struct pair *a, enum kind kind, int V, uint64_t seed) {
    *a = (struct pair){.V = kind == TWO ? 2 : V};
    double *p = a->dense_p, *q = a->dense_q;
    for (int i = 0; i < a->V; i++) {
        bool odd = i % 2;
        p[i] = exp(1.5 * rng_normal(seed, 1, (uint64_t)i));
        q[i] = exp(1.5 * rng_normal(seed, 2, (uint64_t)i));
        if (kind == OPPOSED) p[i] = exp(-.5 * i), q[i] = exp(-.5 * (a->V - 1 - i));
        if ((kind == P_ZEROS || kind == DISJOINT) && odd) p[i] = 0;
        if ((kind == Q_ZEROS && i % 3) || (kind == DISJOINT && !odd)) q[i] = 0;
        if (kind == SAME) q[i] = p[i];
        if (kind == ONE_P || kind == ONE_BOTH) p[i] = i == 2;
        if (kind == ONE_Q || kind == ONE_BOTH) q[i] = i == 1;
    }
    a->n_p = list_of(p, a->V, .98, a->p);
    a->n_q = list_of(q, a->V, kind == SAME ? .98 : 1.01, a->q);
}

// A rule under test: a verifier's, or one with a mistake. Children come by `draw`; all else as in a judgement.
struct rule {
    const char *name;
    enum draw draw;
    int32_t (*choose)(const struct judgement *j);
    const char *of; // a mistake: the verifier that makes it
};

// Draws and judges `draws` times; how often the token was a child.
static long play(const struct rule *r, const struct pair *a, size_t n, long draws, long *seen) {
    long taken = 0;
    double work[2 * V_MOST];
    int32_t child[CHILDREN_MOST];
    for (long i = 0; i < draws; i++) {
        // One address for both: what is drawn and what is tested share no number all the same.
        size_t have = verifier_draw(r->draw, a->q, a->n_q, n, SEED, STREAM, (uint64_t)i, work, child);
        struct judgement j = {.p = a->p, .q = a->q, .n_p = a->n_p, .n_q = a->n_q, .child = child, .n = have, .seed = SEED,
                              .stream = STREAM, .counter = (uint64_t)i, .work = work};
        int32_t id = r->choose(&j);
        bool hit = false;
        for (size_t k = 0; k < have; k++) hit = hit || child[k] == id;
        taken += hit;
        seen[index_of(id)]++;
    }
    return taken;
}

static void one_position(const struct verifier *v, enum kind kind, int n, long draws) {
    struct pair a;
    long seen[V_MOST] = {0};
    make_pair(&a, kind, 9, (uint64_t)kind);
    struct rule r = {v->name, v->draw, v->choose, NULL};
    mem_freeze(true); // nothing is allocated in a step
    long taken = play(&r, &a, (size_t)n, draws, seen);
    mem_freeze(false);
    double t = surprise(seen, a.dense_p, a.V, draws), share = (double)taken / (double)draws;
    cr_expect(t > false_alarm, "%s, %s, %d guesses, seed %d: tail probability %g", v->name, kind_names[kind], n, SEED, t);
    double formula = transport_taken(v, a.dense_p, a.dense_q, a.V, n), best = transport_best(v->draw, a.dense_p, a.dense_q, a.V, n);
    double error = sigmas * sqrt(fmax(formula * (1 - formula), 0) / (double)draws) + 1e-9;
    cr_expect(fabs(share - formula) <= error, "%s, %s, %d guesses: accepts %.5f, the formula says %.5f +- %.5f", v->name,
              kind_names[kind], n, share, formula, error);
    cr_expect(formula <= best + 1e-9, "%s, %s, %d guesses: %.9f is beyond the best, %.9f", v->name, kind_names[kind], n, formula, best);
}

static void one_position_of(const char *name) {
    const int guesses[] = {1, 2, 4};
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t k = 0; k < COUNT_OF(guesses); k++) one_position(verifier_find(name), (enum kind)kind, guesses[k], 100000);
}

TestSuite(verify, .timeout = 120);
Test(verify, rejection_draws_the_target) { one_position_of("rejection"); }
Test(verify, without_replacement_draws_the_target) { one_position_of("without-replacement"); }
Test(verify, k_seq_draws_the_target) { one_position_of("k-seq"); }
Test(verify, greedy_multi_draws_the_target) { one_position_of("greedy-multi"); }

Test(verify, the_table_is_complete) {
    cr_assert_str_eq(verifiers[0].name, "coupled");
    cr_assert_null(verifiers[0].choose);
    for (int i = 0; i < verifier_count; i++) {
        const struct verifier *v = &verifiers[i];
        cr_expect_eq(verifier_find(v->name), v);
        cr_expect(v->help && v->source && (v->choose || i == 0), "%s", v->name);
        for (int n = 0; i && n < KINDS; n++) { // no guess at all: a draw from p
            struct pair a;
            long seen[V_MOST] = {0};
            make_pair(&a, (enum kind)n, 9, 1);
            struct rule r = {v->name, v->draw, v->choose, NULL};
            cr_expect_eq(play(&r, &a, 0, 1000, seen), 0);
            cr_expect(surprise(seen, a.dense_p, a.V, 1000) > false_alarm, "%s without guesses", v->name);
        }
    }
    cr_assert_null(verifier_find("greedy"));
}

// ---- drawing

Test(verify, draws_are_of_their_kind) {
    enum { N = 4, DRAWS = 100000 };
    struct pair a;
    make_pair(&a, RANDOM, 9, 3);
    long second[3][V_MOST * V_MOST] = {{0}};
    double pairs[3][V_MOST * V_MOST] = {{0}}, work[V_MOST];
    int32_t child[N], fewer[N], top[N];
    cr_assert_eq(verifier_draw(DRAW_ANY, a.q, a.n_q, N, 0, 0, 0, work, top), N);
    for (long i = 0; i < DRAWS; i++)
        for (int kind = 0; kind < 3; kind++) {
            const enum draw draws[] = {DRAW_REPLACE, DRAW_WITHOUT, DRAW_TOP_ONE};
            size_t n = kind == 2 ? 3 : N;
            cr_assert_eq(verifier_draw(draws[kind], a.q, a.n_q, n, SEED, STREAM, (uint64_t)i, work, child), n);
            if (kind == 2) {
                cr_assert(child[0] == top[0] && child[1] == top[1] && child[2] != top[0] && child[2] != top[1]);
                second[2][index_of(child[2])]++;
                continue;
            }
            verifier_draw(draws[kind], a.q, a.n_q, 2, SEED, STREAM, (uint64_t)i, work, fewer);
            cr_assert(fewer[0] == child[0] && fewer[1] == child[1]);
            second[kind][index_of(child[0]) * a.V + index_of(child[1])]++;
        }
    const double *q = a.dense_q;
    for (int x = 0; x < a.V; x++) {
        bool is_top = x == index_of(top[0]) || x == index_of(top[1]);
        pairs[2][x] = is_top ? 0 : q[x] / (1 - q[index_of(top[0])] - q[index_of(top[1])]);
        for (int y = 0; y < a.V; y++) {
            pairs[0][x * a.V + y] = q[x] * q[y];
            pairs[1][x * a.V + y] = x == y ? 0 : q[x] * q[y] / (1 - q[x]);
        }
    }
    for (int kind = 0; kind < 3; kind++)
        cr_expect(surprise(second[kind], pairs[kind], a.V * a.V, DRAWS) > false_alarm, "kind %d", kind);
}

Test(verify, draws_end_where_q_does) {
    const struct candidate q[] = {{.id = 4, .p = .25f}, {.id = 6, .p = 0}, {.id = 9, .p = .5f}, {.id = 11, .p = .25f}};
    double work[4];
    int32_t child[5];
    for (uint64_t i = 0; i < 100; i++) {
        cr_assert_eq(verifier_draw(DRAW_WITHOUT, q, 4, 5, SEED, STREAM, i, work, child), 3);
        cr_assert_eq(child[0] + child[1] + child[2], 24);
        cr_assert_eq(verifier_draw(DRAW_REPLACE, q, 4, 5, SEED, STREAM, i, work, child), 5);
        for (int k = 0; k < 5; k++) cr_assert_neq(child[k], 6);
        for (size_t n = 3; n < 6; n++) cr_assert_eq(verifier_draw(DRAW_TOP_ONE, q, 4, n, SEED, STREAM, i, work, child), 3);
        cr_assert(child[0] == 9 && child[1] == 4 && child[2] == 11); // equals by rising id
        cr_assert_eq(verifier_draw(DRAW_ANY, q, 4, 5, SEED, STREAM, i, work, child), 3);
        cr_assert_eq(verifier_draw(DRAW_WITHOUT, q, 4, 0, SEED, STREAM, i, work, child), 0);
    }
}

// Weights of q that a float can tell apart and a difference of doubles cannot: what is left of q is summed, not subtracted.
Test(verify, what_is_left_of_q_may_be_tiny) {
    const struct candidate q[] = {{.id = 0, .p = 1}, {.id = 1, .p = 1e-24f}, {.id = 2, .p = 3e-24f}};
    const struct candidate p[] = {{.id = 1, .p = .75f}, {.id = 2, .p = .25f}};
    const double dense[] = {0, .75, .25};
    const int32_t orders[2][2] = {{0, 1}, {0, 2}};
    const struct verifier *v = verifier_find("without-replacement");
    double work[5];
    long seen[3] = {0}, draws = 100000;
    for (long i = 0; i < draws; i++) {
        bool second = rng_uniform(SEED, 9, (uint64_t)i) < .75; // as q without 0 is drawn
        struct judgement j = {.p = p, .q = q, .n_p = 2, .n_q = 3, .child = orders[second], .n = 2, .seed = SEED,
                              .stream = STREAM, .counter = (uint64_t)i, .work = work};
        seen[v->choose(&j)]++;
    }
    cr_expect(surprise(seen, dense, 3, draws) > false_alarm);
}

// ---- rules with a mistake

static int32_t right(const char *name, const struct judgement *j) { return verifier_find(name)->choose(j); }

static bool is_child(const struct judgement *j, int32_t id) {
    for (size_t i = 0; i < j->n; i++)
        if (j->child[i] == id) return true;
    return false;
}

// What is no guess is drawn from p itself, not from what is missing of it.
static int32_t rest_from_p(const char *name, const struct judgement *j) {
    int32_t id = right(name, j);
    if (is_child(j, id)) return id;
    struct judgement none = *j;
    none.n = 0;
    none.stream++;
    return right(name, &none);
}
static int32_t rest_from_p_rejection(const struct judgement *j) { return rest_from_p("rejection", j); }
static int32_t rest_from_p_without(const struct judgement *j) { return rest_from_p("without-replacement", j); }
static int32_t rest_from_p_k_seq(const struct judgement *j) { return rest_from_p("k-seq", j); }
static int32_t rest_from_p_greedy(const struct judgement *j) { return rest_from_p("greedy-multi", j); }

// Guesses in the order of their ids, not in that of their drawing.
static int32_t sorted_children(const char *name, const struct judgement *j) {
    int32_t child[CHILDREN_MOST];
    for (size_t i = 0, at; i < j->n; i++) {
        for (at = i; at > 0 && child[at - 1] > j->child[i]; at--) child[at] = child[at - 1];
        child[at] = j->child[i];
    }
    struct judgement s = *j;
    s.child = child;
    return right(name, &s);
}
static int32_t sorted_rejection(const struct judgement *j) { return sorted_children("rejection", j); }
static int32_t sorted_without(const struct judgement *j) { return sorted_children("without-replacement", j); }
static int32_t sorted_greedy(const struct judgement *j) { return sorted_children("greedy-multi", j); }

// Refused tokens stay in q; the rule for draws with replacement does just that.
static int32_t refused_stay(const struct judgement *j) { return right("rejection", j); }
// The last guess as drawn from all of q.
static int32_t last_of_all(const struct judgement *j) {
    struct judgement last = *j;
    if (j->n) last.child += j->n - 1, last.n = 1;
    return right("rejection", &last);
}

// K-SEQ of a given rho, with the number that drew the rest: for one guess and rho 1 it is the plain rule.
static int32_t share_of(const struct judgement *j, double rho, bool reuse) {
    double p[V_MOST] = {0}, q[V_MOST] = {0}, beta = 0, tries = 0, sum = 0, u = 0;
    for (size_t i = 0; i < j->n_p; i++) p[index_of(j->p[i].id)] = (double)j->p[i].p / .98;
    for (size_t i = 0; i < j->n_q; i++) q[index_of(j->q[i].id)] = (double)j->q[i].p / 1.01;
    for (int i = 0; i < V_MOST; i++) beta += fmin(p[i] / rho, q[i]);
    for (size_t i = 0; i < j->n; i++) {
        int x = index_of(j->child[i]);
        tries += pow(1 - beta, (double)i);
        u = rng_uniform(j->seed, j->stream, 1000 * j->counter + i);
        if (u * rho * q[x] < p[x]) return j->child[i];
    }
    for (int i = 0; i < V_MOST; i++) sum += p[i] = fmax(0, p[i] - tries * fmin(p[i] / rho, q[i]));
    if (!reuse) u = rng_uniform(j->seed, j->stream, 1000 * j->counter + 999);
    u *= sum;
    int at = 0;
    while (at < V_MOST - 1 && (u -= p[at]) >= 0) at++;
    return id_of(at);
}
static int32_t share_of_one(const struct judgement *j) { return share_of(j, 1, false); }
static int32_t share_of_all(const struct judgement *j) { return share_of(j, (double)j->n, false); }
static int32_t reused_number(const struct judgement *j) { return share_of(j, (double)j->n, true); }

// A second guess only where the first one is unlikely, to a rule that goes by their number.
static int32_t counted_late(const struct judgement *j) {
    struct judgement s = *j;
    for (size_t i = 0; i < j->n_q; i++)
        if (j->q[i].id == j->child[0] && j->q[i].p > .15f) s.n = 1;
    return right("k-seq", &s);
}
// The same to one that does not.
static int32_t counted_late_rejection(const struct judgement *j) {
    struct judgement s = *j;
    for (size_t i = 0; i < j->n_q; i++)
        if (j->q[i].id == j->child[0] && j->q[i].p > .15f) s.n = 1;
    return right("rejection", &s);
}
// A guess that was drawn, looked at, and not shown.
static int32_t seen_first(const struct judgement *j) {
    struct judgement s = *j;
    while (s.n)
        for (size_t i = 0; i < j->n_q; i++)
            if (j->q[i].id == j->child[s.n - 1]) {
                if (j->q[i].p > .15f) return right("without-replacement", &s);
                s.n--;
                break;
            }
    return right("without-replacement", &s);
}

Test(verify, mistakes_are_found_at_one_position) {
    const struct rule wrong[] = {
        {"the rest from p", DRAW_REPLACE, rest_from_p_rejection, "rejection"},
        {"the rest from p", DRAW_WITHOUT, rest_from_p_without, "without-replacement"},
        {"the rest from p", DRAW_REPLACE, rest_from_p_k_seq, "k-seq"},
        {"the rest from p", DRAW_TOP_ONE, rest_from_p_greedy, "greedy-multi"},
        {"guesses in sorted order", DRAW_REPLACE, sorted_rejection, "rejection"},
        {"guesses in sorted order", DRAW_WITHOUT, sorted_without, "without-replacement"},
        {"guesses in sorted order", DRAW_TOP_ONE, sorted_greedy, "greedy-multi"},
        {"refused tokens stay in q", DRAW_WITHOUT, refused_stay, "without-replacement"},
        {"the last as drawn from all of q", DRAW_TOP_ONE, last_of_all, "greedy-multi"},
        {"rho too small", DRAW_REPLACE, share_of_one, "k-seq"},
        {"one number for the test and the rest", DRAW_REPLACE, reused_number, "rejection, k-seq"},
        {"guesses counted after the first", DRAW_REPLACE, counted_late, "k-seq"},
        {"guesses looked at before they are shown", DRAW_WITHOUT, seen_first, "without-replacement"},
    };
    const long draws = 200000;
    struct pair a;
    make_pair(&a, RANDOM, 9, RANDOM);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        long seen[V_MOST] = {0};
        play(&wrong[i], &a, 4, draws, seen);
        double t = surprise(seen, a.dense_p, a.V, draws);
        cr_expect(t < false_alarm, "%s: %s passed as right, tail probability %g", wrong[i].of, wrong[i].name, t);
    }
    // What the mistakes above are made with is right without them.
    const struct rule fine[] = {{"rho too large", DRAW_REPLACE, share_of_all, "k-seq"},
                                {"guesses counted after the first", DRAW_REPLACE, counted_late_rejection, "rejection"}};
    for (size_t i = 0; i < COUNT_OF(fine); i++) {
        long seen[V_MOST] = {0};
        play(&fine[i], &a, 4, draws, seen);
        cr_expect(surprise(seen, a.dense_p, a.V, draws) > false_alarm, "%s: %s", fine[i].of, fine[i].name);
    }
}

// ---- the best

enum { SMALL = 6, SETS = 1 << SMALL };

// Probability of every set of guesses, by going through all draws.
static void outcomes(enum draw draw, const double *q, int V, int n, int set, double chance, double *out) {
    double left = 0;
    for (int i = 0; i < V; i++) left += draw == DRAW_REPLACE || !(set >> i & 1) ? q[i] : 0;
    if (n == 0 || left <= 0) {
        out[set] += chance;
        return;
    }
    for (int i = 0; i < V; i++)
        if (q[i] > 0 && (draw == DRAW_REPLACE || !(set >> i & 1))) outcomes(draw, q, V, n - 1, set | 1 << i, chance * q[i] / left, out);
}

static void outcomes_of(enum draw draw, const double *q, int V, int n, double *out) {
    int set = 0;
    for (int k = 1; draw == DRAW_TOP_ONE && k < n; k++) {
        int best = -1;
        for (int i = 0; i < V; i++)
            if (!(set >> i & 1) && q[i] > 0 && (best < 0 || q[i] > q[best])) best = i;
        if (best >= 0) set |= 1 << best;
    }
    memset(out, 0, SETS * sizeof *out);
    outcomes(draw, q, V, draw == DRAW_TOP_ONE ? 1 : n, set, 1, out);
}

static double best_of_all_sets(const double *p, const double *chance, int V) {
    double least = 0;
    for (int h = 0; h < 1 << V; h++) {
        double sum = 0;
        for (int i = 0; i < V; i++) sum += h >> i & 1 ? p[i] : 0;
        for (int s = 0; s < 1 << V; s++) sum -= (s & ~h) == 0 ? chance[s] : 0;
        least = fmin(least, sum);
    }
    return 1 + least;
}

// What flows from sets to the tokens in them, by shortest augmenting paths: sent[s][i] of set s becomes token i. A path goes
// from a set with something left to a token, back to a set that sent there, on to another token, to one that has room.
static double most_flow(const double *p, const double *chance, int V) {
    double sent[SETS][SMALL] = {{0}}, left[SETS], room[SMALL], total = 0;
    memcpy(left, chance, sizeof left);
    memcpy(room, p, (size_t)V * sizeof *room);
    for (;;) {
        int queue[SETS + SMALL], from[SETS + SMALL], head = 0, end = 0, found = -1; // node SETS + i is token i
        for (int s = 0; s < SETS + SMALL; s++) from[s] = -1;
        for (int s = 1; s < SETS; s++)
            if (left[s] > 1e-13) from[s] = s, queue[end++] = s;
        while (head < end && found < 0) {
            int at = queue[head++];
            for (int i = 0; at < SETS && i < V; i++)
                if (at >> i & 1 && from[SETS + i] < 0) from[SETS + i] = at, queue[end++] = SETS + i;
            for (int s = 1; at >= SETS && s < SETS; s++)
                if (from[s] < 0 && sent[s][at - SETS] > 1e-13) from[s] = at, queue[end++] = s;
            if (at >= SETS && room[at - SETS] > 1e-13) found = at;
        }
        if (found < 0) return total;
        double flow = room[found - SETS];
        int at = found;
        for (; from[at] != at; at = from[at])
            if (at < SETS) flow = fmin(flow, sent[at][from[at] - SETS]);
        flow = fmin(flow, left[at]);
        room[found - SETS] -= flow;
        left[at] -= flow;
        for (at = found; from[at] != at; at = from[at])
            if (at >= SETS) sent[from[at]][at - SETS] += flow;
            else sent[at][from[at] - SETS] -= flow;
        total += flow;
    }
}

Test(verify, the_best_is_that_of_all_sets_and_of_a_flow) {
    const enum draw draws[] = {DRAW_REPLACE, DRAW_WITHOUT, DRAW_TOP_ONE};
    double chance[SETS];
    for (int round = 0; round < 60; round++) {
        struct pair a;
        make_pair(&a, (enum kind)(round % KINDS), 3 + round / KINDS % 4, (uint64_t)round);
        const double *p = a.dense_p, *q = a.dense_q;
        for (int k = 0; k < 9; k++) {
            int n = 1 + k / 3;
            outcomes_of(draws[k % 3], q, a.V, n, chance);
            double best = transport_best(draws[k % 3], p, q, a.V, n), all = best_of_all_sets(p, chance, a.V);
            double flow = most_flow(p, chance, a.V);
            cr_expect(fabs(best - all) < 1e-11 && fabs(flow - all) < 1e-10, "round %d, %s, draw %d of %d: %.12f, all sets %.12f, flow %.12f",
                      round, kind_names[round % KINDS], k % 3, n, best, all, flow);
        }
    }
}

// No rule beats the best of its draw, greedy-multi reaches it, and so do the others with one guess.
Test(verify, no_rule_beats_the_best_of_its_draw) {
    for (int round = 0; round < 200; round++) {
        struct pair a;
        make_pair(&a, (enum kind)(round % KINDS), 4 + round % 9, 1000 + (uint64_t)round);
        for (int k = 1; k < verifier_count; k++)
            for (int n = 1; n <= 4; n++) {
                const struct verifier *v = &verifiers[k];
                double taken = transport_taken(v, a.dense_p, a.dense_q, a.V, n);
                double best = transport_best(v->draw, a.dense_p, a.dense_q, a.V, n);
                cr_expect(taken <= best + 1e-9, "round %d, %s of %d: %.12f, best %.12f", round, v->name, n, taken, best);
                if (n == 1) cr_expect(fabs(taken - best) < 1e-9, "round %d, %s of one: %.12f, best %.12f", round, v->name, taken, best);
            }
    }
}

// ---- texts through trees

// Distributions for every pair of tokens before; -1 stands before the first.
struct world {
    int V;
    struct pair *at;
};

static int state_of(const struct world *w, int before, int last) { return (before + 1) * (w->V + 1) + last + 1; }
static int state_after(const struct world *w, int state, int token) { return state_of(w, state % (w->V + 1) - 1, token); }

static struct world make_world(int V, uint64_t seed) {
    int states = (V + 1) * (V + 1);
    struct world w = {V, mem_array((size_t)states, sizeof *w.at, "toy distributions")};
    for (int s = 0; s < states; s++) {
        struct pair *a = &w.at[s];
        a->V = V;
        for (int i = 0; i < V; i++) {
            double x = 1.2 * rng_normal(seed, (uint64_t)(2 * s), (uint64_t)i);
            double y = .6 * x + .8 * rng_normal(seed, (uint64_t)(2 * s + 1), (uint64_t)i);
            a->dense_p[i] = (s + i) % 7 ? exp(x) : 0;
            a->dense_q[i] = (s + i) % 5 ? exp(y) : 0;
        }
        a->n_p = list_of(a->dense_p, V, 1, a->p);
        a->n_q = list_of(a->dense_q, V, 1, a->q);
    }
    return w;
}

enum { NODES_MOST = 24 };
struct tree {
    int n, id[NODES_MOST], depth[NODES_MOST], state[NODES_MOST];
    int children[NODES_MOST], child[NODES_MOST][CHILDREN_MOST]; // in the order of their drawing
};

static int add_node(const struct world *w, struct tree *t, int parent, int id) {
    int at = t->n++;
    assert(at < NODES_MOST);
    t->id[at] = id;
    t->depth[at] = t->depth[parent] + 1;
    t->state[at] = state_after(w, t->state[parent], id);
    t->children[at] = 0;
    t->child[parent][t->children[parent]++] = at;
    return at;
}

// What a text is made with: a rule, a shape, and what may go wrong.
struct scheme {
    struct rule rule;
    int width, deep;  // of every node; width 0: a tree that grows where it is likeliest to be entered
    int budget;       // nodes of the latter
    bool stale;       // mistake: every draft of a text draws with the numbers of the first
    bool choosy;      // mistake: a drawn guess of little weight is not shown
};

static void draw_children(const struct world *w, const struct scheme *c, int state, int n, uint64_t address, int32_t *child) {
    double work[V_MOST];
    const struct pair *a = &w->at[state];
    size_t have = verifier_draw(c->rule.draw, a->q, a->n_q, (size_t)n, SEED, STREAM, address, work, child);
    for (size_t i = 0; i < (size_t)n; i++) child[i] = i < have ? index_of(child[i]) : -1;
}

static void grow_fixed(const struct world *w, const struct scheme *c, struct tree *t, uint64_t draft) {
    int32_t child[CHILDREN_MOST];
    for (int at = 0; at < t->n; at++) {
        if (t->depth[at] == c->deep) continue;
        draw_children(w, c, t->state[at], c->width, draft * NODES_MOST + (uint64_t)at, child);
        for (int i = 0; i < c->width && child[i] >= 0; i++) add_node(w, t, at, child[i]);
    }
}

// DySpec (Xiong et al. 2024): each node has a slot for its next child; its value is the drafter's probability that the walk comes to
// where that child is tested. The likeliest slot is filled next. So a second child is drawn only when that is worth more than
// going on below the first.
static void grow_adaptive(const struct world *w, const struct scheme *c, struct tree *t, uint64_t draft) {
    double reach[NODES_MOST] = {1}, left[NODES_MOST] = {1}; // of the node by q; of q behind the children it has
    int32_t child[CHILDREN_MOST];
    for (int drawn = 1; drawn < c->budget; drawn++) {
        int at = -1;
        for (int i = 0; i < t->n; i++)
            if (t->depth[i] < c->deep && t->children[i] < CHILDREN_MOST && left[i] > 1e-9 && (at < 0 || reach[i] * left[i] > reach[at] * left[at])) at = i;
        if (at < 0) return;
        int n = t->children[at] + 1;
        draw_children(w, c, t->state[at], n, draft * NODES_MOST + (uint64_t)at, child);
        double weight = w->at[t->state[at]].dense_q[child[n - 1]];
        left[at] -= weight;
        if (c->choosy && weight < .2) {
            left[at] = 0;
            continue;
        }
        int fresh = add_node(w, t, at, child[n - 1]);
        reach[fresh] = reach[at] * weight;
        left[fresh] = 1;
    }
}

static int choose_at(const struct world *w, const struct scheme *c, const struct tree *t, int at, uint64_t address) {
    double work[2 * V_MOST];
    int32_t child[CHILDREN_MOST];
    const struct pair *a = &w->at[t->state[at]];
    for (int i = 0; i < t->children[at]; i++) child[i] = id_of(t->id[t->child[at][i]]);
    struct judgement j = {.p = a->p, .q = a->q, .n_p = a->n_p, .n_q = a->n_q, .child = child, .n = (size_t)t->children[at],
                          .seed = SEED, .stream = STREAM + 1, .counter = address, .work = work};
    return index_of(c->rule.choose(&j));
}

// One text: drafts and walks, until it is long enough. *passes: how many drafts that took.
static void write_text(const struct world *w, const struct scheme *c, uint64_t number, int *text, int length, long *passes) {
    int state = 0, position = 0;
    for (uint64_t draft = number * 8; position < length; draft += !c->stale) {
        struct tree t = {.n = 1, .state = {state}};
        (c->width ? grow_fixed : grow_adaptive)(w, c, &t, draft);
        ++*passes;
        for (int at = 0; at >= 0 && position < length; position++) {
            int token = choose_at(w, c, &t, at, number * 8 + (uint64_t)position), next = -1;
            for (int i = 0; i < t.children[at] && next < 0; i++)
                if (t.id[t.child[at][i]] == token) next = t.child[at][i];
            text[position] = token;
            state = state_after(w, state, token);
            at = next;
        }
    }
}

// Tail probability of `texts` texts of a length against the product of the target's distributions.
static double texts_surprise(const struct world *w, const struct scheme *c, int length, long texts, double *per_pass) {
    int cells = 1, text[3] = {0};
    long passes = 0;
    for (int i = 0; i < length; i++) cells *= w->V;
    long *seen = mem_array((size_t)cells, sizeof *seen, "texts seen");
    double *p = mem_array((size_t)cells, sizeof *p, "texts expected");
    for (int cell = 0; cell < cells; cell++) {
        int state = 0;
        p[cell] = 1;
        for (int i = 0, rest = cell, scale = cells / w->V; i < length; i++, rest %= scale, scale /= w->V) {
            int token = rest / scale;
            p[cell] *= w->at[state].dense_p[token];
            state = state_after(w, state, token);
            if (scale == 1) break;
        }
    }
    for (long n = 0; n < texts; n++) {
        int cell = 0;
        write_text(w, c, (uint64_t)n, text, length, &passes);
        for (int i = 0; i < length; i++) cell = cell * w->V + text[i];
        seen[cell]++;
    }
    double t = surprise(seen, p, cells, texts);
    *per_pass = (double)length * (double)texts / (double)passes;
    mem_free(seen);
    mem_free(p);
    return t;
}

static struct rule rule_of(const char *name) {
    const struct verifier *v = verifier_find(name);
    return (struct rule){v->name, v->draw, v->choose, NULL};
}

Test(verify, texts_through_trees_are_the_targets) {
    struct world w = make_world(8, 1), wide = make_world(64, 2);
    double per_pass;
    for (int k = 1; k < verifier_count; k++)
        for (int width = 1; width <= 3; width++) {
            struct scheme c = {.rule = rule_of(verifiers[k].name), .width = width, .deep = 2};
            double t = texts_surprise(&w, &c, 3, 60000, &per_pass);
            cr_expect(t > false_alarm, "%s, %d children: tail probability %g", c.rule.name, width, t);
            cr_expect(per_pass > 1.2, "%s, %d children: %.3f tokens a pass", c.rule.name, width, per_pass);
            if (width != 2) continue;
            t = texts_surprise(&wide, &c, 2, 40000, &per_pass);
            cr_expect(t > false_alarm, "%s of 64 tokens: tail probability %g", c.rule.name, t);
        }
    mem_free(w.at);
    mem_free(wide.at);
}

Test(verify, texts_through_trees_that_grow_by_chance_are_the_targets) {
    struct world w = make_world(8, 1), wide = make_world(64, 2);
    const char *const names[] = {"without-replacement", "rejection"};
    double per_pass;
    for (size_t k = 0; k < COUNT_OF(names); k++)
        for (int budget = 4; budget <= 16; budget *= 4) {
            struct scheme c = {.rule = rule_of(names[k]), .deep = 4, .budget = budget};
            double t = texts_surprise(&w, &c, 3, 60000, &per_pass);
            cr_expect(t > false_alarm, "%s, %d nodes: tail probability %g", c.rule.name, budget, t);
            t = texts_surprise(&wide, &c, 2, 40000, &per_pass);
            cr_expect(t > false_alarm, "%s, %d nodes, 64 tokens: tail probability %g", c.rule.name, budget, t);
        }
    mem_free(w.at);
    mem_free(wide.at);
}

Test(verify, mistakes_are_found_in_texts) {
    const struct rule without = rule_of("without-replacement"), k_seq = rule_of("k-seq"), greedy = rule_of("greedy-multi");
    const struct {
        const char *mistake;
        struct scheme scheme;
    } wrong[] = {
        {"drafts share their numbers", {.rule = without, .width = 2, .deep = 2, .stale = true}},
        {"drafts share their numbers", {.rule = k_seq, .width = 2, .deep = 2, .stale = true}},
        {"drafts share their numbers", {.rule = greedy, .width = 2, .deep = 2, .stale = true}},
        {"unlikely guesses are not shown", {.rule = without, .deep = 4, .budget = 8, .choosy = true}},
        {"children in sorted order", {.rule = {"sorted", DRAW_WITHOUT, sorted_without, ""}, .deep = 4, .budget = 8}},
        {"refused tokens stay in q", {.rule = {"stay", DRAW_WITHOUT, refused_stay, ""}, .deep = 4, .budget = 8}},
        {"the rest from p", {.rule = {"rest", DRAW_REPLACE, rest_from_p_rejection, ""}, .width = 2, .deep = 2}},
        {"the rest from p", {.rule = {"rest", DRAW_REPLACE, rest_from_p_k_seq, ""}, .width = 2, .deep = 2}},
        {"the rest from p", {.rule = {"rest", DRAW_TOP_ONE, rest_from_p_greedy, ""}, .width = 2, .deep = 2}},
        {"k-seq in a tree that grows by chance", {.rule = k_seq, .deep = 4, .budget = 8}},
    };
    struct world w = make_world(8, 1);
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        double per_pass, t = texts_surprise(&w, &wrong[i].scheme, 3, 60000, &per_pass);
        cr_expect(t < false_alarm, "%s, %s: passed as right, tail probability %g", wrong[i].scheme.rule.name, wrong[i].mistake, t);
    }
    mem_free(w.at);
}
