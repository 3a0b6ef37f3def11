// schedule: the learning rate as a pure function of the tokens done.
//
// A run has up to three phases. Only the middle one differs between the rows of the table:
//
//     warmup   n + batch < warmup              curve(warmup) * (n + batch) / warmup
//     curve    up to total - decay             power, wsd, infinite, inverse-sqrt; or one shape over the whole run
//     decay    the last `decay` tokens         curve(total - decay) * shape(u, final), u = (n - start) / decay
//
// The warmup is read at the end of the step and everything that falls at its beginning. So no step is lost: the first
// one of a warmup is not zero, and the last one of a decay to zero is still one batch above zero.
//
// A curve does not look at `total`: a run may be prolonged, and any state of it may be cooled down. Sources: methods A.1
// (shapes), A.2 (wsd), A.3 (power: Shen et al. 2024, arXiv 2408.13359, section 4).
#include "learn/learn.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

// --- shapes: 1 at u = 0, final at u = 1 ----------------------------------------------------------------------------

static double shape_linear(double u, const struct schedule *s) { return 1 - (1 - s->final) * u; }
static double shape_none(double u, const struct schedule *s) {
    (void)u, (void)s;
    return 1;
}
static double shape_to_zero(double u, const struct schedule *s) {
    (void)s;
    return 1 - u;
}
static double shape_sqrt(double u, const struct schedule *s) {
    return s->final + (1 - s->final) * (1 - sqrt(u));
}
static double shape_cosine(double u, const struct schedule *s) {
    return s->final + (1 - s->final) * 0.5 * (1 + cos(pi * u));
}
static double shape_rex(double u, const struct schedule *s) {
    return s->final + (1 - s->final) * (1 - u) / (1 - u / 2);
}

// One family between shapes that hold on long (phi below 1) and shapes that fall early; phi = 2 is the cosine.
static double shape_uba(double u, const struct schedule *s) {
    double c = 1 + cos(pi * u);
    return s->final + (1 - s->final) * 2 * c / (2 * s->phi + (2 - s->phi) * c);
}

// a e^-u + b through 1 and final: falls by e on the way, whatever the floor.
static double shape_affine(double u, const struct schedule *s) {
    return s->final + (1 - s->final) * (exp(1 - u) - 1) / (exp(1) - 1);
}

// final^u falls by equal ratios but never reaches zero; for final = 0 it is the affine one, which does.
static double shape_exponential(double u, const struct schedule *s) {
    return s->final > 0 ? pow(s->final, u) : shape_affine(u, s);
}

const struct decay_row decays[] = {
    {"1-sqrt", shape_sqrt, "falls fast at first, slowly at the end"},
    {"linear", shape_linear, "a straight line"},
    {"exponential", shape_exponential, "equal ratios; to zero: the affine one, which reaches it"},
    {"affine", shape_affine, "a e^-u + b, an exponential shifted to end at the floor"},
    {"cosine", shape_cosine, "half a cosine wave"},
    {"rex", shape_rex, "(1 - u) / (1 - u/2): holds on, then falls fast"},
    {"uba", shape_uba, "2(1 + c) / (2 phi + (2 - phi)(1 + c)), c = cos(pi u), phi by --phi; 2 is the cosine"},
};
const int decay_count = COUNT_OF(decays);

// --- curves: the rate at n tokens, without warmup and decay --------------------------------------------------------

// min(lr, beta a n^b): the rate that fits a run which would end at n tokens, whatever the batch. At n = 0 the power
// is infinite and the cap holds. The paper's batches begin at 64k tokens. From there down the best rate falls more slowly
// than the batch (Adam's root, methods A.4): 0.67 is what one amplitude for all batches asks for (bench/sweep-power.csv).
static double curve_power(const struct schedule *s, double n) {
    double beta = s->batch / 4096, least = POWER_LEAST_BATCH / 4096.0;
    if (beta < least) beta = least * pow(beta / least, s->power_c);
    return fmin(s->lr, beta * s->power_a * pow(s->seen + n, s->power_b));
}

static double curve_constant(const struct schedule *s, double n) {
    (void)n;
    return s->lr;
}

// The rate a warmup ends at, then falling with the root of all tokens. Without a warmup the first step is the root's.
static double curve_inverse_sqrt(const struct schedule *s, double n) {
    double from = fmax(s->warmup, s->batch);
    return s->lr * sqrt(from / fmax(n, from));
}

// From the peak down to `hold` of it along a cosine of `cool` tokens, then level for ever: a trunk that neither knows
// its end nor stays at its peak, from which any number of runs can decay, and to which new data can be added: a model that
// has seen `cool` tokens before is on the level, and needs no warmup there.
static double curve_infinite(const struct schedule *s, double n) {
    double u = s->cool > 0 ? fmin((s->seen + n - s->warmup) / s->cool, 1) : 1;
    return s->lr * (s->hold + (1 - s->hold) * 0.5 * (1 + cos(pi * u)));
}

const struct schedule_row schedules[] = {
    {"power", curve_power, NULL,
     "min(lr, batch/4096 * a * tokens^b), the batch below 64k by its power c, then a decay: fits any batch and any length",
     "Shen et al. 2024, arXiv 2408.13359"},
    {"wsd", curve_constant, NULL, "warmup, stable, decay: constant, then a decay",
     "Hu et al. 2024, arXiv 2404.06395"},
    {"infinite", curve_infinite, NULL, "falls to --hold of lr over --cool tokens, level, then a decay",
     "Ibrahim et al. 2024, arXiv 2403.08763"},
    {"inverse-sqrt", curve_inverse_sqrt, NULL, "lr sqrt(warmup / tokens), then a decay",
     "Vaswani et al. 2017, arXiv 1706.03762"},
    {"cosine", NULL, shape_cosine, "half a cosine wave from lr to final * lr over the whole run",
     "Loshchilov & Hutter 2017, arXiv 1608.03983"},
    {"linear", NULL, shape_linear, "a straight line from lr to final * lr over the whole run", "-"},
    {"linear-to-zero", NULL, shape_to_zero, "the same, to zero whatever final says",
     "Bergsma et al. 2025, arXiv 2502.15938"},
    {"rex", NULL, shape_rex, "the shape rex over the whole run", "Chen et al. 2021, arXiv 2107.04197"},
    {"uba", NULL, shape_uba, "the shape uba over the whole run, --phi between early and late",
     "Tang et al. 2025, arXiv 2505.24452"},
    {"constant", NULL, shape_none, "lr after the warmup", "-"},
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

// The rate at n tokens, of a run that is past its warmup and before its decay.
static double rate(const struct schedule *s, double n) {
    if (s->kind->curve) return s->kind->curve(s, n);
    double u = n > s->warmup ? fmin((n - s->warmup) / fmax(s->total - s->warmup, 1), 1) : 0;
    return s->lr * s->kind->over(u, s);
}

double schedule_lr(const struct schedule *s, double n) {
    assert(s->kind && n >= 0 && s->batch > 0 && s->warmup >= 0 && s->final >= 0);
    if (n + s->batch < s->warmup) return rate(s, s->warmup) * ((n + s->batch) / s->warmup);
    double at = fmax(n, s->warmup); // the step across the end of the warmup has the value there
    if (!s->kind->curve || !(s->decay > 0)) return rate(s, at);
    assert(s->shape);
    double start =
        fmax(s->total - s->decay, s->warmup); // a decay longer than what warmup left is shortened
    if (at < start) return rate(s, at);
    double u = s->total > start ? fmin((at - start) / (s->total - start), 1) : 1;
    return rate(s, start) * s->shape->factor(u, s);
}
