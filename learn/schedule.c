// schedule: the learning rate as a pure function of the tokens done.
//
// A run has up to three phases. Only the middle one differs between the rows of the table:
//
//     warmup   n + batch < warmup              curve(warmup) * (n + batch) / warmup
//     curve    up to total - decay             power, wsd, cosine, linear or constant, at n
//     decay    the last `decay` tokens         curve(total - decay) * shape(u, final), u = (n - start) / decay
//
// The warmup is read at the end of the step and everything that falls at its beginning. So no step is lost: the first
// one of a warmup is not zero, and the last one of a decay to zero is still one batch above zero.
//
// Nothing here looks at `total` before the decay begins (power, wsd, constant): a run may be prolonged, and any state
// of it may be cooled down. Sources: methods A.1 (shapes), A.2 (wsd), A.3 (power: Shen et al. 2024, arXiv 2408.13359,
// section 4).
#include "learn/learn.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

// --- decay shapes: 1 at u = 0, final at u = 1 ----------------------------------------------------------------------

static double decay_linear(double u, double final) { return 1 - (1 - final) * u; }

static double decay_sqrt(double u, double final) { return final + (1 - final) * (1 - sqrt(u)); }

static double decay_cosine(double u, double final) {
    return final + (1 - final) * 0.5 * (1 + cos(pi * u));
}

// final^u falls by equal ratios but never reaches zero; for final = 0 the exponential is shifted so that it does.
static double decay_exponential(double u, double final) {
    if (final > 0) return pow(final, u);
    return (exp(1 - u) - 1) / (exp(1) - 1);
}

const struct decay_row decays[] = {
    {"1-sqrt", decay_sqrt, "falls fast at first, slowly at the end"},
    {"linear", decay_linear, "a straight line"},
    {"exponential", decay_exponential,
     "equal ratios; to zero: a shifted exponential that reaches it"},
    {"cosine", decay_cosine, "half a cosine wave"},
};
const int decay_count = COUNT_OF(decays);

// --- curves: the rate at n tokens, without warmup and decay --------------------------------------------------------

// min(lr, beta a n^b): the rate that fits a run which would end at n tokens, whatever the batch. At n = 0 the power
// is infinite and the cap holds.
static double curve_power(const struct schedule *s, double n) {
    double beta = s->batch / 4096;
    return fmin(s->lr, beta * s->power_a * pow(n, s->power_b));
}

static double curve_constant(const struct schedule *s, double n) {
    (void)n;
    return s->lr;
}

// Share of the way from warmup to total; a run of nothing but warmup is at its end.
static double way(const struct schedule *s, double n) {
    double length = s->total - s->warmup;
    if (!(length > 0)) return 1;
    return fmin(fmax((n - s->warmup) / length, 0), 1);
}

static double curve_cosine(const struct schedule *s, double n) {
    return s->lr * decay_cosine(way(s, n), s->final);
}

static double curve_linear(const struct schedule *s, double n) {
    return s->lr * decay_linear(way(s, n), s->final);
}

const struct schedule_row schedules[] = {
    {"power", curve_power, true,
     "min(lr, batch/4096 * a * tokens^b), then a decay: fits any batch and any length",
     "Shen et al. 2024, arXiv 2408.13359"},
    {"wsd", curve_constant, true, "warmup, stable, decay: constant, then a decay",
     "Hu et al. 2024, arXiv 2404.06395"},
    {"cosine", curve_cosine, false, "half a cosine wave from lr to final * lr over the whole run",
     "Loshchilov & Hutter 2017, arXiv 1608.03983"},
    {"linear", curve_linear, false, "a straight line from lr to final * lr over the whole run",
     "Bergsma et al. 2025, arXiv 2502.15938"},
    {"constant", curve_constant, false, "lr after the warmup", "-"},
};
const int schedule_count = COUNT_OF(schedules);

const struct schedule_row *schedule_find(const char *name) {
    for (int i = 0; i < schedule_count; i++)
        if (strcmp(schedules[i].name, name) == 0) return &schedules[i];
    return NULL;
}

const struct decay_row *decay_find(const char *name) {
    for (int i = 0; i < decay_count; i++)
        if (strcmp(decays[i].name, name) == 0) return &decays[i];
    return NULL;
}

double schedule_lr(const struct schedule *s, double n) {
    assert(s->kind && n >= 0 && s->batch > 0 && s->warmup >= 0 && s->final >= 0);
    if (n + s->batch < s->warmup)
        return s->kind->curve(s, s->warmup) * ((n + s->batch) / s->warmup);
    double at = fmax(n, s->warmup); // the step across the end of the warmup has the value there
    if (!s->kind->decays || !(s->decay > 0)) return s->kind->curve(s, at);
    assert(s->shape);
    double start =
        fmax(s->total - s->decay, s->warmup); // a decay longer than what warmup left is shortened
    if (at < start) return s->kind->curve(s, at);
    double u = s->total > start ? fmin((at - start) / (s->total - start), 1) : 1;
    return s->kind->curve(s, start) * s->shape->factor(u, s->final);
}
