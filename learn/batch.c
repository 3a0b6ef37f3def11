// batch: how many tokens a step takes, what that does to the rate, and the gradient's noise that says whether it is right.
//
// The number of tokens is the user's; a micro-batch is memory only. Rules that let the number grow are pure functions of
// the tokens done, but for `adaptive`, which looks at the measured noise: two moving averages that a checkpoint carries.
// So a resumed run takes the same batches.
//
// Noise (McCandlish et al. 2018, arXiv 1812.06162, appendix A): a mean gradient over b tokens has a squared norm of
// |G|^2 + S / b, S the trace of the covariance of one token's gradient. Two norms of one step, over its first b tokens
// and over all B, give estimates of both; they are averaged apart, because the mean of their ratio is no estimate. S /
// |G|^2 in tokens is the batch at which noise and signal are equal.
#include "learn/learn.h"

#include <math.h>
#include <string.h>

// --- noise ---------------------------------------------------------------------------------------------------------

enum { NOISE_STEPS = 100 }; // about what the averages remember

void noise_add(struct noise *z, double b, double small, double B, double large) {
    assert(b > 0 && B > b);
    double signal = (B * large - b * small) / (B - b), trace = (small - large) / (1 / b - 1 / B);
    if (!isfinite(signal) || !isfinite(trace)) return;
    z->steps++;
    // A plain mean at first, so that the start does not weigh more than its share.
    double share = fmax(1 / z->steps, 1.0 / NOISE_STEPS);
    z->signal += share * (signal - z->signal);
    z->trace += share * (trace - z->trace);
}

double noise_scale(const struct noise *z) {
    enum { LEAST = 10 }; // single steps may well come out negative
    return z->steps >= LEAST && z->signal > 0 && z->trace > 0 ? z->trace / z->signal : NAN;
}

// --- batch ---------------------------------------------------------------------------------------------------------

static double size_constant(struct batch_rule *r, double n) {
    (void)n;
    return r->most;
}

static double size_ramp(struct batch_rule *r, double n) {
    return r->ramp > 0 ? r->least + (r->most - r->least) * fmin(n / r->ramp, 1) : r->most;
}

static double size_critical(struct batch_rule *r, double n) {
    (void)r;
    return step_law_batch(n);
}

// The norm test asks for a variance of the batch's gradient of at most theta^2 |G|^2. That variance is S / B, so B must
// be noise / theta^2 at least. The paper takes both from one step; the signal of one step of a small batch is nearly all
// noise, and since a batch never shrinks one bad guess would stay. So the averages decide, once in the time that they
// remember, and what they want is trusted up to a doubling: the next average, of larger batches, is better.
static double size_adaptive(struct batch_rule *r, double n) {
    (void)n;
    double scale = noise_scale(&r->noise), now = fmax((double)r->now, r->least);
    if (r->noise.steps < r->judged + NOISE_STEPS || !isfinite(scale)) return now;
    r->judged = r->noise.steps;
    return fmin(scale / (r->theta * r->theta), 2 * now);
}

const struct batch_row batch_rules[] = {
    {"constant", size_constant, "--batch-tokens from the first step on", "-"},
    {"ramp", size_ramp, "from --batch-least up to it in a straight line over --batch-ramp tokens",
     "Brown et al. 2020, arXiv 2005.14165"},
    {"critical", size_critical, "the Step Law's batch for a run that would end now, 0.58 tokens^0.571",
     "Li et al. 2025, arXiv 2503.04715"},
    {"adaptive", size_adaptive, "grows whenever the gradient's noise fails the norm test of --batch-theta",
     "Lau et al. 2024, arXiv 2402.11215"},
};
const int batch_rule_count = COUNT_OF(batch_rules);

const struct batch_row *batch_rule_find(const char *name) {
    for (int i = 0; i < batch_rule_count; i++)
        if (strcmp(batch_rules[i].name, name) == 0) return &batch_rules[i];
    return NULL;
}

// Its data begin at 4G tokens; for small runs half of it does better (stories at 0.6M and 1.5M tokens: 1024 beats 2048).
double step_law_batch(double tokens) { return 0.58 * pow(tokens, 0.571) * (tokens < 1e8 ? 0.5 : 1); }

int64_t batch_next(struct batch_rule *r, double n) {
    assert(r->T > 0 && r->least >= (double)r->T && r->most >= r->least);
    double size = fmin(fmax(r->kind->size(r, n), fmax(r->least, (double)r->now)), r->most);
    r->now = (int64_t)(size / (double)r->T) * r->T; // least and most are whole sequences
    return r->now;
}

// --- rate ----------------------------------------------------------------------------------------------------------

static double lr_none(double B, double at, double noise) {
    (void)B, (void)at, (void)noise;
    return 1;
}

static double lr_sqrt(double B, double at, double noise) {
    (void)noise;
    return sqrt(B / at);
}

static double lr_linear(double B, double at, double noise) {
    (void)noise;
    return B / at;
}

// Adam's best rate rises with the root of the batch far below the noise scale, is highest there and falls behind it.
static double lr_surge(double B, double at, double noise) {
    if (!isfinite(noise)) return lr_sqrt(B, at, noise);
    return (sqrt(noise / at) + sqrt(at / noise)) / (sqrt(noise / B) + sqrt(B / noise));
}

const struct batch_lr_row batch_lr_rules[] = {
    {"none", lr_none, "the rate does not follow the batch", "-"},
    {"sqrt", lr_sqrt, "rate by the root of the batch: Adam below the noise scale", "Malladi et al. 2022, arXiv 2205.10287"},
    {"linear", lr_linear, "rate by the batch: SGD, and what power does by itself", "Goyal et al. 2017, arXiv 1706.02677"},
    {"surge", lr_surge, "by the root up to the noise scale, down behind it", "Li et al. 2024, arXiv 2405.14578"},
};
const int batch_lr_rule_count = COUNT_OF(batch_lr_rules);

const struct batch_lr_row *batch_lr_rule_find(const char *name) {
    for (int i = 0; i < batch_lr_rule_count; i++)
        if (strcmp(batch_lr_rules[i].name, name) == 0) return &batch_lr_rules[i];
    return NULL;
}
