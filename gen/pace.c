// pace.c: how far to guess ahead, by measuring.
//
// A pass that judges n rows costs T(n) and brings 1 + (sum of the chances of its guesses) tokens; a drafter's time comes on
// top. With the speed of late as the price of time, a pass is worth tokens - price * seconds: the pass that maximises this, every
// time, maximises tokens by seconds in the long run (the ratio is what is wanted, its denominator is priced). Chances are what a
// predictor says, corrected by how often guesses of such a word held; several are mixed, those the most whose corrected words
// have been nearest to what happened. T(n) is kept as a multiple of T(1). All of it forgets, so that what has changed is tried again.
//
// Trying costs. What guesses won and lost against plain passes is kept account of: below the floor nothing more is tried until plain
// passes have earned it, a hundredth of their time each; what was won is forgotten beyond a few passes, so that a
// drafter that turns bad is dropped soon, however good it was.
#include "gen/spec.h"

#include <math.h>
#include <string.h>

// Plain passes before the first guess, since the first ones of a process are slower than any later, and whoever takes them for T(1) thinks
// that guesses win. Then so many passes lie between rests of a few plain ones, which keep T(1) known. Only plain passes behind
// plain ones tell it: behind guesses the caches hold other things (SmolLM2 135M: 3.3 ms instead of 2.9).
enum { WARM = 6, EARLY = 64, EVERY_EARLY = 12, EVERY = 32, REST = 3 };
static const double floor_passes = 1.2, roof_passes = 4, earned = 0.01, unknown_row = 0.2;

const struct predictor_row predictors[PREDICTORS] = {
    [BY_CONFIDENCE] = {"confidence", "how sure the drafter is of its choice", 0.16},
    [BY_ENTROPY] = {"entropy", "how few tokens its distribution comes down to, exp(-entropy)", 0.17},
    [BY_RUNNING] = {"running", "how often guesses at this place in a row held of late", 0.18},
    [BY_HEAD] = {"head", "the acceptance head of the draft file", 0.16},
};

void pace_open(struct pace *p, int arms, const double *cost) {
    assert(arms <= PACE_ARMS);
    *p = (struct pace){.arms = arms};
    for (int i = 0; i < arms; i++) p->arm[i].cost = cost[i];
}

// A running low quantile: what else the machine does only ever adds. All is reckoned in these, so that nothing looks dearer for having been
// measured in a bad moment. Something much dearer than is believed counts little the first time and much the second.
static double settle(struct pace_cost *c, double took, double belief) {
    bool over = took > 1.25 * belief, again = over && c->over;
    if (over) took = fmin(took, (again ? 2 : 1.25) * belief);
    c->x = c->x > 0 ? c->x + (again ? 0.3 : took < c->x ? 0.3 : 0.1) * (took - c->x) : took;
    c->over = over;
    return c->x;
}

// ---- what is known

bool pace_may_guess(const struct pace *p) {
    return p->plain_passes >= WARM && p->resting == 0 && p->account > -floor_passes * p->plain.x;
}

// Between two that were measured on the line; beyond the last each row is taken to cost a fifth, or most of what rows cost so far.
double pace_rows(const struct pace *p, int32_t n) {
    if (n <= 1) return 1;
    if (p->ratio[n].x > 0) return p->ratio[n].x;
    int32_t below = n - 1, above = n + 1;
    while (below > 1 && p->ratio[below].x <= 0) below--;
    while (above <= DRAFT_ROWS && p->ratio[above].x <= 0) above++;
    double low = below == 1 ? 1 : p->ratio[below].x;
    if (above > DRAFT_ROWS) return low + fmax(unknown_row, below == 1 ? 0 : 0.8 * (low - 1) / (below - 1)) * (n - below);
    return low + (p->ratio[above].x - low) * (n - below) / (above - below);
}

static int bucket_of(float word) {
    int b = (int)(word * PACE_BUCKETS);
    return b < 0 ? 0 : b >= PACE_BUCKETS ? PACE_BUCKETS - 1 : b;
}

static double corrected(const struct pace_words *w, float word) {
    static const double weight = 4; // guesses that the word itself counts as
    int b = bucket_of(word);
    return (w->held[b] + weight * (double)word) / (w->tried[b] + weight);
}

double pace_error(const struct pace *p, int arm, enum predictor by) {
    static const double weight = 32; // judged guesses that the first value counts as
    const struct pace_words *w = &p->arm[arm].by[by];
    return (w->error + weight * predictors[by].first) / (w->judged + weight);
}

enum predictor pace_predictor(const struct pace *p, int arm, const float *words) {
    enum predictor best = BY_CONFIDENCE;
    for (enum predictor k = 0; k < PREDICTORS; k++)
        if (words[k] >= 0 && pace_error(p, arm, k) < pace_error(p, arm, best)) best = k;
    return best;
}

// Their mean, in which one whose error is `worse` above the best has a share of 1/e of the best's. On 1969 guesses for SmolLM2-135M
// (November 2026; chat, code and prose, pace anew with each text) the mean square was .157 at temperature 0 and .176 at 0.8; of
// the confidence alone .162 and .219, of the best so far alone .170 and .192.
double pace_chance(const struct pace *p, int arm, const float *words) {
    static const double worse = 0.02;
    double best = pace_error(p, arm, pace_predictor(p, arm, words)), sum = 0, all = 0;
    for (enum predictor k = 0; k < PREDICTORS; k++) {
        if (words[k] < 0) continue;
        double share = exp((best - pace_error(p, arm, k)) / worse);
        sum += share * corrected(&p->arm[arm].by[k], words[k]);
        all += share;
    }
    return sum / all;
}

static double usual_chance(const struct pace_arm *a) { return (a->chances + 2 * 0.6) / (a->made + 2); }

// Tokens a second: what a second must bring to be well spent.
static double price(const struct pace *p) {
    double plain = 1 / p->plain.x, late = p->late_s > 0 ? p->late_tokens / p->late_s : 0;
    return late > plain ? late : plain;
}

double pace_value(const struct pace *p, double tokens, int32_t rows) {
    double cost = pace_rows(p, rows);
    if (rows > 1 && p->account < (cost - 1 - floor_passes) * p->plain.x) return -INFINITY; // more than may be lost
    return tokens - price(p) * p->plain.x * cost;
}

double pace_ahead(const struct pace *p, int arm, const struct pace_chain *c, bool *more) {
    const struct pace_arm *a = &p->arm[arm];
    double guess = a->guess.x > 0 ? a->guess.x : a->cost * p->plain.x, reach = c->reach, sum = c->sum, spent = 0;
    if (c->n > 0 && c->seconds > 0) guess = fmax(guess, 0.5 * c->seconds / c->n); // half of it may be what comes before the first
    double best = pace_value(p, sum, c->n + 1);
    *more = false;
    for (int32_t n = c->n + 1; n <= c->most; n++) {
        reach *= usual_chance(a);
        sum += reach;
        spent += price(p) * guess;
        double value = pace_value(p, sum, n + 1) - spent;
        if (value > best) best = value, *more = true;
    }
    return best;
}

double pace_row_share(const struct pace *p) {
    enum { ROWS = 8 };
    return p->plain.x > 0 ? price(p) * p->plain.x * (pace_rows(p, ROWS) - 1) / (ROWS - 1) : 0;
}

// ---- what happened

static void forget(struct pace *p) {
    const double keep = 0.995, late = 0.95;
    for (int i = 0; i < p->arms; i++) {
        struct pace_arm *a = &p->arm[i];
        for (int k = 0; k < PREDICTORS; k++)
            for (int b = 0; b < PACE_BUCKETS; b++) a->by[k].tried[b] *= keep, a->by[k].held[b] *= keep;
        a->made *= keep, a->chances *= keep;
    }
    // What is too dear is not tried, so that it would never be known to have become cheaper.
    for (int n = 2; n <= DRAFT_ROWS; n++) p->ratio[n].x -= fmax(0, 0.002 * (p->ratio[n].x - 1 - unknown_row * (n - 1)));
    p->late_tokens *= late, p->late_s *= late;
}

static void enter(struct pace *p, double won) { p->account = fmin(p->account + won, roof_passes * p->plain.x); }

void pace_plain(struct pace *p, double took) {
    forget(p);
    if (p->judged_passes > 0 && p->in_a_row == 0) enter(p, p->plain.x - fmin(took, 1.5 * p->plain.x)); // what the guesses before cost this pass
    if (p->plain_passes++ >= WARM / 2 && p->in_a_row++ > 0) settle(&p->plain, took, p->plain.x > 0 ? p->plain.x : took); // the first pack weights and fill caches
    p->late_s += p->plain.x;
    if (p->resting > 0) p->resting--;
    enter(p, earned * p->plain.x);
}

void pace_judged(struct pace *p, int32_t rows, double took) {
    forget(p);
    p->in_a_row = 0;
    p->judged_passes++;
    if (p->judged_passes % (p->judged_passes < EARLY ? EVERY_EARLY : EVERY) == 0) p->resting = REST;
    if (p->plain.x <= 0) return;
    double about = settle(&p->ratio[rows], took / p->plain.x, pace_rows(p, rows)) * p->plain.x;
    p->late_s += about;
    enter(p, p->plain.x - about);
}

void pace_drafted(struct pace *p, int arm, int32_t guesses, double took) {
    struct pace_arm *a = &p->arm[arm];
    double about = guesses > 0 ? settle(&a->guess, took / guesses, a->guess.x > 0 ? a->guess.x : took / guesses) * guesses : took;
    p->late_s += about;
    enter(p, -about);
}

// All that were made, not those alone that were judged, or the usual guess would look as good as the best.
void pace_made(struct pace *p, int arm, const float *words) {
    const double keep = 0.97;
    struct pace_arm *a = &p->arm[arm];
    a->made = keep * a->made + 1;
    a->chances = keep * a->chances + pace_chance(p, arm, words);
}

void pace_told(struct pace *p, int arm, const float *words, bool held) {
    const double keep = 0.97, slowly = 0.998;
    for (int k = 0; k < PREDICTORS; k++) {
        if (words[k] < 0) continue;
        struct pace_words *w = &p->arm[arm].by[k];
        double off = corrected(w, words[k]) - held;
        int b = bucket_of(words[k]);
        w->error = slowly * w->error + off * off;
        w->judged = slowly * w->judged + 1;
        w->tried[b] = keep * w->tried[b] + 1;
        w->held[b] = keep * w->held[b] + held;
    }
}

void pace_token(struct pace *p, bool guessed) {
    p->late_tokens += 1;
    if (guessed) enter(p, p->plain.x);
}
