// sampler.c: the filter chain and the draw.
//
// Candidates start as all tokens with their logits; each filter cuts or reweighs the list; the draw is the argmax of
// logit / temp + Gumbel noise keyed by (seed, position, token), which is a draw from the softmax (Gumbel 1954; Maddison et
// al. 2014). Because the noise of a token does not depend on the other candidates, two computations that agree on the
// distribution agree on the token.
//
// Order everywhere: falling logit, ties by rising id, so that equal logits never depend on a sort's whim.
#include "gen/gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct sampler_options sampler_defaults = {
    .temp = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .typical = 1, .repeat_penalty = 1, .repeat_last = 64,
    .mirostat_tau = 5, .mirostat_eta = 0.1, .seed = -1,
};

struct list {
    struct candidate *c;
    size_t n;
    bool sorted;
};

struct sampler {
    struct sampler_options o;
    int64_t vocab;
    struct list list;
    double *scratch;    // one per candidate
    int32_t *count;     // occurrences of each token in the window
    int32_t *window;    // ring of the last repeat_last tokens
    int64_t window_cap, taken;
    double mu;          // mirostat's running bound on surprise, bits
};

// ---- candidates

int candidate_by_id(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_logit(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool before(struct candidate a, struct candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

static void sort_list(struct list *l) {
    if (!l->sorted) qsort(l->c, l->n, sizeof *l->c, by_logit);
    l->sorted = true;
}

static void heap_up(struct candidate *h, size_t at, struct candidate x) { // worst on top
    for (; at > 0 && before(h[(at - 1) / 2], x); at = (at - 1) / 2) h[at] = h[(at - 1) / 2];
    h[at] = x;
}

static void heap_replace(struct candidate *h, size_t k, struct candidate x) { // the worst
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < k; at = child) {
        if (child + 1 < k && before(h[child], h[child + 1])) child++;
        if (!before(x, h[child])) break;
        h[at] = h[child];
    }
    h[at] = x;
}

// The k best to the front, sorted: a heap of the k best seen, over one pass.
static void keep_best(struct list *l, size_t k) {
    if (k >= l->n) {
        sort_list(l);
        return;
    }
    for (size_t i = 0; i < l->n; i++)
        if (i < k) heap_up(l->c, i, l->c[i]);
        else if (before(l->c[i], l->c[0])) heap_replace(l->c, k, l->c[i]);
    l->n = k;
    l->sorted = false;
    sort_list(l);
}

// p from logits; needs the list sorted so that c[0] is the largest.
static void softmax(struct list *l) {
    sort_list(l);
    double sum = 0;
    for (size_t i = 0; i < l->n; i++) sum += l->c[i].p = expf(l->c[i].logit - l->c[0].logit);
    for (size_t i = 0; i < l->n; i++) l->c[i].p = (float)(l->c[i].p / sum);
}

// ---- the filters, in chain order

static bool penalizes(const struct sampler *s) {
    const struct sampler_options *o = &s->o;
    return o->repeat_last != 0 && (o->repeat_penalty != 1 || o->presence_penalty != 0 || o->frequency_penalty != 0);
}

static float penalized(const struct sampler *s, int32_t id, float logit) {
    const struct sampler_options *o = &s->o;
    int32_t count = s->count[id];
    if (!count) return logit;
    double x = logit;
    x = x > 0 ? x / o->repeat_penalty : x * o->repeat_penalty;
    return (float)(x - o->presence_penalty - count * o->frequency_penalty);
}

static void top_k(struct sampler *s, struct list *l) {
    if (s->o.top_k > 0) keep_best(l, (size_t)s->o.top_k);
}

static int by_scratch(const void *a, const void *b) {
    const double *x = a, *y = b;
    if (x[0] != y[0]) return x[0] < y[0] ? -1 : 1;
    return (x[1] > y[1]) - (x[1] < y[1]);
}

// Locally typical: keep the tokens whose surprise is nearest to the entropy until their mass reaches `typical`.
static void typical(struct sampler *s, struct list *l) {
    if (s->o.typical >= 1) return;
    softmax(l);
    double entropy = 0, mass = 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->c[i].p > 0) entropy -= l->c[i].p * log(l->c[i].p);
    double *pair = s->scratch; // (distance, index)
    for (size_t i = 0; i < l->n; i++) {
        pair[2 * i] = fabs(-log((double)l->c[i].p) - entropy);
        pair[2 * i + 1] = (double)i;
    }
    qsort(pair, l->n, 2 * sizeof *pair, by_scratch);
    size_t kept = 0;
    while (kept < l->n && mass < s->o.typical) mass += l->c[(size_t)pair[2 * kept++ + 1]].p;
    for (size_t i = 0; i < l->n; i++) l->c[i].p = 0;
    for (size_t i = 0; i < kept; i++) l->c[(size_t)pair[2 * i + 1]].p = 1; // a mark
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->c[i].p > 0) l->c[n++] = l->c[i]; // order by logit survives
    l->n = n;
}

static void top_p(struct sampler *s, struct list *l) {
    if (s->o.top_p >= 1) return;
    softmax(l);
    double mass = 0;
    size_t n = 0;
    while (n < l->n && mass < s->o.top_p) mass += l->c[n++].p;
    l->n = n ? n : 1;
}

static void min_p(struct sampler *s, struct list *l) {
    if (s->o.min_p <= 0) return;
    sort_list(l);
    float least = l->c[0].logit + (float)log(s->o.min_p); // p >= min_p * p_max, by logits
    size_t n = 1;
    while (n < l->n && l->c[n].logit >= least) n++;
    l->n = n;
}

static void temperature(struct sampler *s, struct list *l) {
    for (size_t i = 0; i < l->n; i++) l->c[i].logit = (float)(l->c[i].logit / s->o.temp);
}

// Mirostat 1: cut at the k whose Zipf estimate gives surprise mu. Mirostat 2: cut at surprise mu directly.
static void mirostat(struct sampler *s, struct list *l) {
    if (!s->o.mirostat) return;
    softmax(l);
    size_t n = 1;
    if (s->o.mirostat == 1) {
        double num = 0, den = 0;
        size_t m = l->n < 100 ? l->n : 100;
        for (size_t i = 0; i + 1 < m && l->c[i + 1].p > 0; i++) {
            double t = log((double)(i + 2) / (double)(i + 1)), b = log((double)l->c[i].p / l->c[i + 1].p);
            num += t * b;
            den += t * t;
        }
        double zipf = den > 0 ? num / den : 1, excess = zipf - 1;
        double k = pow(excess * pow(2, s->mu) / (1 - pow((double)s->vocab, -excess)), 1 / zipf);
        if (!(k >= 1)) k = 1;
        n = k < (double)l->n ? (size_t)k : l->n;
    } else {
        while (n < l->n && -log2((double)l->c[n].p) <= s->mu) n++;
    }
    l->n = n;
}

const struct sampler_filter sampler_filters[] = {
    {"penalties", "--repeat-penalty, --presence-penalty, --frequency-penalty over the last --repeat-last-n tokens"},
    {"top-k", "the k likeliest tokens"},
    {"typical", "tokens whose surprise is near the entropy, up to a mass"},
    {"top-p", "the likeliest tokens up to a mass"},
    {"min-p", "tokens at least so likely, relative to the likeliest"},
    {"temperature", "logits divided by it; 0 takes the likeliest token"},
    {"mirostat", "instead of top-k, typical, top-p and min-p: keeps the surprise near tau"},
};
const int sampler_filter_count = COUNT_OF(sampler_filters);
static void (*const chain[])(struct sampler *, struct list *) = {NULL, top_k, typical, top_p, min_p, temperature, mirostat};
static_assert(COUNT_OF(chain) == COUNT_OF(sampler_filters), "one function per row, but the first, which fill_list applies");
enum { FIRST_CUT = 1, LAST_CUT = 4 }; // what mirostat replaces

// ---- the sampler

static bool in_range(const char *name, double x, double min, double max, struct err *err) {
    if (x >= min && x <= max) return true;
    return err_set(err, "%s is %g, expected a number from %g to %g", name, x, min, max);
}

bool sampler_check(const struct sampler_options *o, struct err *err) {
    return in_range("--temp", o->temp, 0, 1000, err) && in_range("--top-k", (double)o->top_k, 0, 1e9, err) &&
           in_range("--top-p", o->top_p, 0, 1, err) && in_range("--min-p", o->min_p, 0, 1, err) &&
           in_range("--typical", o->typical, 0, 1, err) && in_range("--repeat-penalty", o->repeat_penalty, 0.01, 100, err) &&
           in_range("--presence-penalty", o->presence_penalty, -100, 100, err) &&
           in_range("--frequency-penalty", o->frequency_penalty, -100, 100, err) &&
           in_range("--repeat-last-n", (double)o->repeat_last, -1, 1e7, err) &&
           in_range("--mirostat", (double)o->mirostat, 0, 2, err) && in_range("--mirostat-tau", o->mirostat_tau, 0, 100, err) &&
           in_range("--mirostat-eta", o->mirostat_eta, 0, 10, err) && in_range("--seed", (double)o->seed, 0, 9.3e18, err);
}

struct sampler *sampler_new(const struct sampler_options *o, int64_t vocab) {
    assert(vocab > 0 && o->seed >= 0 && sampler_check(o, NULL));
    struct sampler *s = mem_alloc(sizeof *s, "sampler");
    s->o = *o;
    s->vocab = vocab;
    s->list.c = mem_array((size_t)vocab, sizeof *s->list.c, "sampler candidates");
    s->scratch = mem_array((size_t)vocab, 2 * sizeof *s->scratch, "sampler scratch");
    s->count = mem_array((size_t)vocab, sizeof *s->count, "sampler counts");
    s->window_cap = o->repeat_last > 0 ? o->repeat_last : 0;
    s->window = mem_array((size_t)s->window_cap, sizeof *s->window, "sampler window");
    s->mu = 2 * o->mirostat_tau;
    return s;
}

void sampler_free(struct sampler *s) {
    if (!s) return;
    mem_free(s->list.c);
    mem_free(s->scratch);
    mem_free(s->count);
    mem_free(s->window);
    mem_free(s);
}

void sampler_accept(struct sampler *s, int32_t id) {
    assert(id >= 0 && id < s->vocab);
    if (s->window_cap) {
        int64_t at = s->taken % s->window_cap;
        if (s->taken >= s->window_cap) s->count[s->window[at]]--;
        s->window[at] = id;
    }
    s->count[id]++;
    s->taken++;
}

// Penalties, and of what they leave the k best, sorted; 0: all, as they come. Most logits are read once and no more.
static void fill_list(struct sampler *s, const struct guess_logits *z, size_t k) {
    struct list *l = &s->list;
    bool changes = penalizes(s);
    l->n = 0;
    l->sorted = false;
    for (int64_t i = 0; i < z->n; i++) {
        float logit = z->of[i];
        bool full = k && l->n == k;
        if (full && logit < l->c[0].logit && !changes) continue;
        int32_t id = z->ids ? z->ids[i] : (int32_t)i;
        if (id < 0) continue;
        struct candidate x = {id, changes ? penalized(s, id, logit) : logit, 0};
        if (!k) l->c[l->n++] = x;
        else if (!full) heap_up(l->c, l->n++, x);
        else if (before(x, l->c[0])) heap_replace(l->c, k, x);
    }
    if (k) sort_list(l);
}

// Runs the chain behind the penalties; at temperature 0 the best is all that is left.
static void cut_list(struct sampler *s) {
    struct list *l = &s->list;
    if (s->o.temp == 0) {
        sort_list(l);
        l->c[0].logit = 0;
        l->n = 1;
        return;
    }
    for (int i = 1; i < (int)COUNT_OF(chain); i++)
        if (!s->o.mirostat || i < FIRST_CUT || i > LAST_CUT) chain[i](s, l);
}

static void run_chain(struct sampler *s, const float *logits) {
    size_t first = s->o.temp == 0 ? 1 : s->o.mirostat || s->o.top_k < 1 ? 0 : (size_t)s->o.top_k; // what the chain cuts to first anyway
    fill_list(s, &(struct guess_logits){logits, NULL, s->vocab}, first);
    cut_list(s);
}

bool sampler_sees(const float *logits, int64_t n, int64_t position, struct err *err) {
    bool bad = false, any_finite = false;
    for (int64_t i = 0; i < n; i++) {
        bad |= !(logits[i] < INFINITY); // NaN too
        any_finite |= logits[i] > -INFINITY;
    }
    for (int64_t i = 0; bad && i < n; i++)
        if (!(logits[i] < INFINITY))
            return err_set(err, "the model's output at position %lld is not a number (token %lld): its weights are damaged, try --check",
                           (long long)position, (long long)i);
    if (any_finite) return true;
    return err_set(err, "the model allows no token at position %lld: every logit is minus infinity", (long long)position);
}

int32_t sampler_pick(struct sampler *s, const float *logits, int64_t position, struct err *err) {
    if (!sampler_sees(logits, s->vocab, position, err)) return -1;
    run_chain(s, logits);
    struct list *l = &s->list;
    size_t chosen = 0;
    double best = -INFINITY;
    for (size_t i = 0; i < l->n && l->n > 1; i++) {
        double x = l->c[i].logit + rng_gumbel((uint64_t)s->o.seed, (uint64_t)position, (uint64_t)l->c[i].id);
        if (x > best) best = x, chosen = i;
    }
    // p is still that of the distribution before the cut, as in the paper's algorithm 1.
    if (s->o.mirostat && s->o.temp > 0) s->mu -= s->o.mirostat_eta * (-log2((double)l->c[chosen].p) - s->o.mirostat_tau);
    return l->c[chosen].id;
}

size_t sampler_distribution(struct sampler *s, const float *logits, struct candidate *out) {
    run_chain(s, logits);
    softmax(&s->list);
    memcpy(out, s->list.c, s->list.n * sizeof *out);
    return s->list.n;
}

static double entropy_of(const struct list *l) {
    double most = -INFINITY, sum = 0, weighed = 0;
    for (size_t i = 0; i < l->n; i++) most = fmax(most, (double)l->c[i].logit);
    for (size_t i = 0; i < l->n; i++) {
        double z = (double)l->c[i].logit - most, e = exp(z);
        if (e > 0) sum += e, weighed += e * z; // a logit of minus infinity is nothing
    }
    return log(sum) - weighed / sum;
}

size_t sampler_guess(struct sampler *s, const struct guess_logits *logits, int64_t position, size_t n, struct candidate *out, double *entropy) {
    struct list *l = &s->list;
    fill_list(s, logits, SAMPLER_ROUGH);
    if (s->o.temp > 0) cut_list(s);
    *entropy = entropy_of(l);
    for (size_t i = 0; i < l->n && s->o.temp > 0; i++)
        l->c[i].logit += (float)rng_gumbel((uint64_t)s->o.seed, (uint64_t)position, (uint64_t)l->c[i].id);
    l->sorted = false;
    softmax(l);
    if (n > l->n) n = l->n;
    memcpy(out, l->c, n * sizeof *out);
    return n;
}

size_t sampler_rough(struct sampler *s, const struct guess_logits *logits, struct candidate *out) {
    fill_list(s, logits, SAMPLER_ROUGH);
    cut_list(s);
    softmax(&s->list);
    memcpy(out, s->list.c, s->list.n * sizeof *out);
    return s->list.n;
}
