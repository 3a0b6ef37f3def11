// verify.c: which token follows, given guesses, by the verifiers of the literature.
//
// All but `coupled` are one idea. A guess x from q is taken with probability min(1, p(x) / q(x)); what is then still missing of p
// is p - min(p, q), and one draw from that, normalised, makes the token p again (Leviathan et al. 2023, appendix A.1; Chen et al.
// 2023, theorem 1). Where there are more guesses, the missing part is the p of the next one.
//
// What each needs to be right is its kind of draw (spec.h) and:
//   - a guess is drawn by numbers of its own, after it was settled that it is drawn. That may depend on all draws before it, of
//     this node and of others, never on its own value. Where `at_once` says so, a node's guesses are counted before the first
//     is drawn, and all of them are shown: the rule goes by their number.
//   - q is what they were drawn from, behind its filters; a repeated guess is shown as often as it was drawn.
//   - the rule is shown them in the order in which they were drawn, and p does not depend on them.
// Then the token is distributed as p whatever q is, given everything before; so a walk through a tree, node by node until the
// token is no child, writes texts distributed as the target's, and a new draft with new numbers may begin there.
//
// Lists are sparse and sorted, so both are walked side by side. Sums are in double, and each list is divided by its own sum: p
// as floats does not add up to one. What that leaves of rounding is some 1e-16 in any probability.
// Random numbers: (seed, stream, counter) names a key, (key, use, which) a number, so draws and tests never share one.
#include "gen/spec.h"

#include <string.h>

enum use { USE_DRAW = 1, USE_TEST, USE_REST };

static double number(uint64_t key, enum use use, size_t which) { return rng_uniform(key, (uint64_t)use, (uint64_t)which); }

// ---- lists

// Where id stands in a sorted list; n: nowhere.
static size_t find(const struct candidate *list, size_t n, int32_t id) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if (list[middle].id < id) lo = middle + 1;
        else hi = middle;
    }
    return lo < n && list[lo].id == id ? lo : n;
}

// Divides x by its sum; false when that is nothing.
static bool normalise(double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n && sum > 0; i++) x[i] /= sum;
    return sum > 0;
}

static void take(double *x, const struct candidate *list, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = (double)list[i].p;
    bool some = normalise(x, n);
    assert(some && "a distribution has a sum");
    (void)some;
}

// The place in x, whose sum is one, where the sum up to it passes u. Rounding may leave u over: then the last that can be.
static size_t place_of(const double *x, size_t n, double u) {
    size_t at = n;
    for (size_t i = 0; i < n; i++) {
        if (!(x[i] > 0)) continue;
        at = i;
        if ((u -= x[i]) < 0) break;
    }
    assert(at < n);
    return at;
}

// ---- judging

struct state {
    const struct judgement *j;
    double *p, *q; // [n_p], [n_q]: what is still missing of p, and what the next guess is drawn from
    uint64_t key;
};

static struct state begin(const struct judgement *j) {
    struct state s = {.j = j, .p = j->work, .q = j->work + j->n_p, .key = rng_u64(j->seed, j->stream, j->counter)};
    take(s.p, j->p, j->n_p);
    if (j->n) take(s.q, j->q, j->n_q);
    return s;
}

// Sum of min(p / rho, q) over all tokens; so many times of it is taken from p.
static double common(struct state *s, double rho, double times) {
    const struct candidate *p = s->j->p, *q = s->j->q;
    double sum = 0;
    for (size_t a = 0, b = 0; a < s->j->n_p; a++) {
        while (b < s->j->n_q && q[b].id < p[a].id) b++;
        if (b == s->j->n_q) break;
        if (q[b].id != p[a].id) continue;
        double part = s->p[a] / rho < s->q[b] ? s->p[a] / rho : s->q[b];
        sum += part;
        s->p[a] = s->p[a] > times * part ? s->p[a] - times * part : 0;
    }
    return sum;
}

// Guess i with probability min(1, p / (rho q)). The number is never 1, so where p is q it is always taken.
static bool accepts(const struct state *s, size_t i, double rho) {
    const struct judgement *j = s->j;
    size_t at_q = find(j->q, j->n_q, j->child[i]), at_p = find(j->p, j->n_p, j->child[i]);
    assert(at_q < j->n_q && s->q[at_q] > 0 && "a guess was drawn from q");
    return at_p < j->n_p && number(s->key, USE_TEST, i) * rho * s->q[at_q] < s->p[at_p];
}

// After a refusal. Where nothing is missing of p, only rounding can have refused: then p as a whole, at no cost to anything.
static void keep_missing(struct state *s, double rho, double times) {
    common(s, rho, times);
    if (!normalise(s->p, s->j->n_p)) take(s->p, s->j->p, s->j->n_p);
}

static void remove_guess(struct state *s, int32_t id) {
    s->q[find(s->j->q, s->j->n_q, id)] = 0;
    normalise(s->q, s->j->n_q); // nothing is left where q had no more tokens; then no further guess comes
}

static int32_t rest(const struct state *s) {
    return s->j->p[place_of(s->p, s->j->n_p, number(s->key, USE_REST, 0))].id;
}

// Guess after guess, each against what the ones before it left missing. Of one guess this is the rule of Leviathan and Chen. A
// refused token is missing no more, so it is neither drawn as the rest nor accepted later.
static int32_t one_by_one(const struct judgement *j, bool replaced) {
    struct state s = begin(j);
    for (size_t i = 0; i < j->n; i++) {
        if (accepts(&s, i, 1)) return j->child[i];
        keep_missing(&s, 1, 1);
        if (!replaced) remove_guess(&s, j->child[i]);
    }
    return rest(&s);
}

static int32_t choose_rejection(const struct judgement *j) { return one_by_one(j, true); }
static int32_t choose_without(const struct judgement *j) { return one_by_one(j, false); }

// How many of n guesses are looked at until one is accepted, where each is with probability beta.
static double looked_at(double beta, size_t n) {
    double sum = 0, reached = 1;
    for (size_t i = 0; i < n; i++, reached *= 1 - beta) sum += reached;
    return sum;
}

// K-SEQ (Sun et al. 2023): all guesses against the same p / rho. `tries` of them are looked at, and min(p / rho, q) * tries is
// the part of p that they make. It must not exceed p, that is tries(rho) <= rho, and the smallest such rho accepts most.
// rho * beta(rho) grows with rho and the chance 1 - (1 - beta)^n = tries * beta falls, so it is found by halving, from the right
// side: where that stops costs acceptance, not truth.
static double k_seq_rho(struct state *s, double *tries) {
    double lo = 1, hi = (double)s->j->n;
    while (hi - lo > 1e-8) {
        double rho = (lo + hi) / 2;
        *(looked_at(common(s, rho, 0), s->j->n) > rho ? &lo : &hi) = rho;
    }
    *tries = looked_at(common(s, hi, 0), s->j->n);
    return hi;
}

static int32_t choose_k_seq(const struct judgement *j) {
    struct state s = begin(j);
    double tries = 0, rho = j->n ? k_seq_rho(&s, &tries) : 1;
    for (size_t i = 0; i < j->n; i++)
        if (accepts(&s, i, rho)) return j->child[i];
    if (j->n) keep_missing(&s, rho, tries);
    return rest(&s);
}

// The likeliest tokens are children anyway, so only the last, drawn from the rest of q, is tested; what is then missing of p
// may well be one of the others (Hu et al. 2025). No rule accepts more of these draws.
static int32_t choose_greedy(const struct judgement *j) {
    struct state s = begin(j);
    for (size_t i = 0; i + 1 < j->n; i++) remove_guess(&s, j->child[i]);
    if (j->n && accepts(&s, j->n - 1, 1)) return j->child[j->n - 1];
    if (j->n) keep_missing(&s, 1, 1);
    return rest(&s);
}

const struct verifier verifiers[] = {
    {"coupled", "the sampler's own choice, accepted where it was guessed: the same bytes as without guesses",
     "Daliri et al. 2025", DRAW_ANY, false, NULL},
    {"rejection", "guesses one by one, each against what those before it left of the distribution",
     "Leviathan et al. 2023, Chen et al. 2023; several guesses: Miao et al. 2024", DRAW_REPLACE, false, choose_rejection},
    {"without-replacement", "the same with guesses that differ, so that none is made twice",
     "Chen et al. 2024 (Sequoia), Jeon et al. 2024", DRAW_WITHOUT, false, choose_without},
    {"k-seq", "independent guesses, all against the same share of the distribution", "Sun et al. 2023 (SpecTr)", DRAW_REPLACE,
     true, choose_k_seq},
    {"greedy-multi", "the likeliest guesses and one drawn from the others: no rule accepts more of such guesses",
     "Hu et al. 2025", DRAW_TOP_ONE, true, choose_greedy},
};
const int verifier_count = COUNT_OF(verifiers);

const struct verifier *verifier_find(const char *name) {
    for (int i = 0; i < verifier_count; i++)
        if (!strcmp(verifiers[i].name, name)) return &verifiers[i];
    return NULL;
}

// ---- drawing

// Places of the n likeliest, falling, equals by rising id; how many there are.
static size_t likeliest(const struct candidate *q, size_t n_q, size_t n, int32_t *place) {
    size_t have = 0;
    for (size_t i = 0; i < n_q; i++) {
        if (!(q[i].p > 0) || !n || (have == n && q[i].p <= q[place[n - 1]].p)) continue;
        size_t at = have < n ? have++ : n - 1;
        for (; at > 0 && q[place[at - 1]].p < q[i].p; at--) place[at] = place[at - 1];
        place[at] = (int32_t)i;
    }
    return have;
}

size_t verifier_draw(enum draw draw, const struct candidate *q, size_t n_q, size_t n, uint64_t seed, uint64_t stream,
                     uint64_t counter, double *work, int32_t *child) {
    uint64_t key = rng_u64(seed, stream, counter);
    size_t fixed = draw == DRAW_ANY ? n : draw == DRAW_TOP_ONE && n ? n - 1 : 0, have = likeliest(q, n_q, fixed, child);
    take(work, q, n_q);
    for (size_t i = 0; i < have; i++) {
        work[child[i]] = 0;
        child[i] = q[child[i]].id;
    }
    bool some = !have || normalise(work, n_q);
    for (; have < n && some; have++) {
        size_t at = place_of(work, n_q, number(key, USE_DRAW, have));
        child[have] = q[at].id;
        if (draw == DRAW_REPLACE) continue;
        work[at] = 0;
        some = normalise(work, n_q);
    }
    return have;
}
