// quantize.c: from weights to the parts of a block (blocks.h).
//
// Without importance Q4_1, Q5_0, Q5_1 and MXFP4 follow the reference rule of GGUF, byte for byte: the range of the
// block decides. All others, and those too when given an importance, are searched, in three steps:
//   1. every group by itself: trial scales around the one that the range suggests; codes by rounding; then the scale
//      (and min) of least weighted squared error for these codes; the best trial is improved by turns of both
//   2. scales and mins of all groups become integers times d and dmin; each group then tries the integers beside its
//      own, with the codes that belong to them
//   3. d and dmin of least squared error for all integers and codes found, kept when the error really falls
// The squared error is sum_j importance[j] (w[j] - x[j])^2: with the mean square of the activations that meet the
// weights as importance it is the error of the product. All sums are taken in one order: same input, same bytes.
#include "core/blocks.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct search {
    const struct block_form *form;
    bool even;      // values are consecutive integers
    bool powers;    // d is a power of two (MXFP4)
    float between[VALUES_MOST]; // sorted uneven values: the middle between values k and k + 1
    float x[BLOCK_MOST], w[BLOCK_MOST];
};

static float inverse_of(float d) { return isfinite(1 / d) ? 1 / d : 0; }
static float f16_round(float x) { return f16_to_f32(f16_from_f32(x)); }

// ---------------------------------------------------------------------------------------------------------------
// Codes.

// What a group becomes: codes, and the values they stand for.
struct coded {
    uint8_t code[BLOCK_MOST];
    float value[BLOCK_MOST];
};

// The values nearest to y.
static void nearest_even(const float *y, int n, int first, int count, struct coded *to) {
    const float most = (float)(count - 1), shift = (float)-first;
    for (int j = 0; j < n; j++) {
        float at = y[j] + shift;
        at = at > 0 ? at : 0; // NaN too
        at = at < most ? at : most;
        const int code = (int)(at + 0.5f);
        to->code[j] = (uint8_t)code;
        to->value[j] = (float)(code + first);
    }
}
static void nearest_sorted(const float *y, int n, const struct search *s, struct coded *to) {
    const int count = 1 << s->form->bits;
    for (int j = 0; j < n; j++) {
        int above = 0;
        for (int k = 0; k < count - 1; k++) above += y[j] > s->between[k];
        to->code[j] = (uint8_t)above;
        to->value[j] = (float)s->form->values[above];
    }
}
static void nearest_any(const float *y, int n, const struct search *s, struct coded *to) {
    const int8_t *values = s->form->values;
    for (int j = 0; j < n; j++) {
        int best = 0;
        for (int k = 1; k < 1 << s->form->bits; k++)
            if (fabsf((float)values[k] - y[j]) < fabsf((float)values[best] - y[j])) best = k;
        to->code[j] = (uint8_t)best;
        to->value[j] = (float)values[best];
    }
}
// Weights [at, at + group) as scale * value - min.
static void encode(const struct search *s, int at, float scale, float min, struct coded *to) {
    const struct block_form *f = s->form;
    const float inverse = inverse_of(scale);
    float y[BLOCK_MOST];
    for (int j = 0; j < f->group; j++) y[j] = (s->x[at + j] + min) * inverse;
    if (s->even)
        nearest_even(y, f->group, f->values[0], 1 << f->bits, to);
    else if (!s->powers)
        nearest_sorted(y, f->group, s, to);
    else
        nearest_any(y, f->group, s, to);
}

// Sums run in eight lanes, as compilers may not reorder them but can do eight at once.
enum { LANES = 8 };
static float lanes_sum(const float *lane) {
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

static float error_of(const struct search *s, int at, float scale, float min,
                      const struct coded *coded) {
    float sum[LANES] = {0};
    for (int j = 0; j < s->form->group; j += LANES)
        for (int l = 0; l < LANES; l++) {
            const float off = scale * coded->value[j + l] - min - s->x[at + j + l];
            sum[l] += s->w[at + j + l] * off * off;
        }
    return lanes_sum(sum);
}

// ---------------------------------------------------------------------------------------------------------------
// One group by itself.

struct fit {
    float scale, min, error;
};

// Scale and min of least error for these codes.
static struct fit fit_codes(const struct search *s, int at, const struct coded *coded) {
    float sum[5][LANES] = {{0}};
    const struct block_form *f = s->form;
    for (int j = 0; j < f->group; j += LANES)
        for (int l = 0; l < LANES; l++) {
            const float v = coded->value[j + l], weight = s->w[at + j + l], x = s->x[at + j + l];
            sum[0][l] += weight;
            sum[1][l] += weight * v;
            sum[2][l] += weight * v * v;
            sum[3][l] += weight * x;
            sum[4][l] += weight * v * x;
        }
    const float w = lanes_sum(sum[0]), wv = lanes_sum(sum[1]), wvv = lanes_sum(sum[2]),
                wx = lanes_sum(sum[3]), wvx = lanes_sum(sum[4]);
    struct fit fit = {0};
    const float det = w * wvv - wv * wv;
    if (f->mins && det > 0) {
        fit.scale = (w * wvx - wv * wx) / det;
        fit.min = -(wvv * wx - wv * wvx) / det;
    }
    // Only formats with one group store the min with its sign.
    if (!f->mins || !(det > 0) || (fit.min < 0 && f->group < f->weights)) {
        fit.min = 0;
        fit.scale = wvv > 0 ? wvx / wvv : 0;
    }
    if (f->mins && !(det > 0) && !(wvv > 0)) fit.min = w > 0 && wx < 0 ? -wx / w : 0;
    fit.error = error_of(s, at, fit.scale, fit.min, coded);
    return fit;
}

static void fit_try(const struct search *s, int at, float scale, float min, struct fit *best) {
    struct coded coded;
    encode(s, at, scale, min, &coded);
    const struct fit fit = fit_codes(s, at, &coded);
    if (fit.error < best->error) *best = fit;
}

enum { TRIALS_EACH_WAY = 6, TURNS = 6 };
static struct fit fit_group(const struct search *s, int at) {
    const struct block_form *f = s->form;
    const int n_values = 1 << f->bits;
    float lo = s->x[at], hi = lo;
    struct fit best = {.error = INFINITY};
    for (int j = 1; j < f->group; j++) {
        lo = s->x[at + j] < lo ? s->x[at + j] : lo;
        hi = s->x[at + j] > hi ? s->x[at + j] : hi;
    }
    if (f->mins) {
        if (f->group < f->weights && lo > 0) lo = 0;
        for (int t = -TRIALS_EACH_WAY; t <= 2 * TRIALS_EACH_WAY; t++)
            fit_try(s, at, (hi - lo) / ((float)(n_values - 1) + 0.2f * (float)t), -lo, &best);
    } else {
        // The value of largest magnitude onto the first value or, mirrored, onto the last.
        const float most = -lo > hi ? lo : hi;
        for (int end = 0; end < 2; end++)
            for (int t = -TRIALS_EACH_WAY; t <= TRIALS_EACH_WAY; t++) {
                const float stretch = 1 + 0.4f * (float)t / (float)n_values;
                fit_try(s, at, most / ((float)f->values[end ? n_values - 1 : 0] * stretch), 0,
                        &best);
            }
    }
    for (int turn = 0; turn < TURNS; turn++) {
        const float before = best.error;
        fit_try(s, at, best.scale, best.min, &best);
        if (!(best.error < before)) break;
    }
    return best;
}

// ---------------------------------------------------------------------------------------------------------------
// A block of groups.

static int clamp_round(float x, int least, int most) {
    if (!(x > (float)least)) return least;
    return x < (float)most ? (int)floorf(x + 0.5f) : most;
}

// The best of the integers beside those that the fit asks for.
static float group_choose(const struct search *s, int g, const struct fit *fit,
                          struct block_parts *p) {
    const struct block_form *f = s->form;
    const int at = g * f->group, scale = clamp_round(fit->scale * inverse_of(p->d), f->least, f->most);
    const int min = f->mins ? clamp_round(fit->min * inverse_of(p->dmin), 0, f->most_min) : 0;
    float best = INFINITY;
    struct coded coded;
    const int span = f->most > f->least, span_min = f->mins && f->most_min > 1;
    for (int i = scale - span; i <= scale + span; i++)
        for (int k = min - span_min; k <= min + span_min; k++) {
            if (i < f->least || i > f->most || (f->mins && (k < 0 || k > f->most_min))) continue;
            const float by = p->d * (float)i, less = p->dmin * (float)(f->mins ? k : 0);
            encode(s, at, by, less, &coded);
            const float error = error_of(s, at, by, less, &coded);
            if (!(error < best) && best < INFINITY) continue;
            best = error;
            p->scale[g] = (int8_t)i;
            p->min[g] = (uint8_t)(f->mins ? k : 0);
            memcpy(p->code + at, coded.code, (size_t)f->group);
        }
    return best;
}

static float block_groups(const struct search *s, const struct fit *fits, struct block_parts *p) {
    float sum = 0;
    for (int g = 0; g < s->form->weights / s->form->group; g++)
        sum += group_choose(s, g, &fits[g], p);
    return sum;
}

// d and dmin of least error for the integers and codes in p.
static void block_refit(const struct search *s, struct block_parts *p) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    const struct block_form *f = s->form;
    for (int j = 0; j < f->weights; j++) {
        const int g = j / f->group;
        const double a = (double)p->scale[g] * f->values[p->code[j]], b = -(double)p->min[g],
                     w = (double)s->w[j], x = (double)s->x[j];
        aa += w * a * a, ab += w * a * b, bb += w * b * b, ax += w * a * x, bx += w * b * x;
    }
    const double det = aa * bb - ab * ab;
    double d = aa > 0 ? ax / aa : 0, dmin = 0;
    if (f->mins && det > 1e-9 * aa * bb) {
        d = (bb * ax - ab * bx) / det;
        dmin = (aa * bx - ab * ax) / det;
    }
    p->d = f16_round((float)d);
    p->dmin = f16_round((float)dmin);
}

enum { REFITS = 3 };
static void block_search(const struct search *s, struct block_parts *best) {
    const struct block_form *f = s->form;
    struct fit fits[GROUPS_MOST];
    float scale = 0, min = 0;
    const int groups = f->weights / f->group;
    for (int g = 0; g < groups; g++) {
        fits[g] = fit_group(s, g * f->group);
        if (fabsf(fits[g].scale) > fabsf(scale)) scale = fits[g].scale;
        if (fabsf(fits[g].min) > fabsf(min)) min = fits[g].min;
    }
    *best = (struct block_parts){0};
    // Signed scales reach farther below zero than above: the largest gets the far end.
    best->d = f16_round(scale / (float)(f->least < 0 ? f->least : f->most));
    best->dmin = f16_round(min / (float)f->most_min);
    float error = block_groups(s, fits, best);
    for (int i = 0; i < REFITS; i++) {
        struct block_parts trial = *best;
        block_refit(s, &trial);
        const float now = block_groups(s, fits, &trial);
        if (!(now < error)) break;
        error = now;
        *best = trial;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Reference rules.

// d = (hi - lo) / most code, dmin = -lo, codes by adding one half and cutting off.
static void rule_range(const struct search *s, struct block_parts *p) {
    float lo = s->x[0], hi = lo;
    for (int j = 1; j < QK; j++) {
        lo = s->x[j] < lo ? s->x[j] : lo;
        hi = s->x[j] > hi ? s->x[j] : hi;
    }
    const int most = (1 << s->form->bits) - 1;
    p->d = (hi - lo) / (float)most;
    p->dmin = -lo;
    const float inverse = inverse_of(p->d);
    for (int j = 0; j < QK; j++) {
        const float at = (s->x[j] - lo) * inverse + 0.5f;
        p->code[j] = (uint8_t)(!(at > 0) ? 0 : at < (float)most ? (int)at : most);
    }
}

// Q5_0: the value of largest magnitude becomes code 0.
static void rule_signed(const struct search *s, struct block_parts *p) {
    float most = 0;
    for (int j = 0; j < QK; j++)
        if (fabsf(s->x[j]) > fabsf(most)) most = s->x[j];
    p->d = most / -16;
    const float inverse = inverse_of(p->d);
    for (int j = 0; j < QK; j++) {
        const float at = s->x[j] * inverse + 16.5f;
        p->code[j] = (uint8_t)(!(at > 0) ? 0 : at < 31 ? (int)at : 31);
    }
}

// MXFP4: d = 2^(floor(log2 largest) - 2), halved because the values are doubled; perhaps the powers beside it.
static void rule_mxfp4(const struct search *s, bool beside, struct block_parts *p) {
    float most = 0, least = INFINITY;
    for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(s->x[j]));
    const int e = !(most > 0) ? -128 : isinf(most) ? 127 : ilogbf(most) - 3;
    struct coded coded;
    for (int k = beside ? e - 1 : e; k <= (beside ? e + 1 : e); k++) {
        const float d = ldexpf(1, k < -128 ? -128 : k > 127 ? 127 : k);
        encode(s, 0, d, 0, &coded);
        const float error = error_of(s, 0, d, 0, &coded);
        if (!(error < least) && least < INFINITY) continue;
        least = error;
        p->d = d;
        memcpy(p->code, coded.code, QK);
    }
}

void block_choose(enum dtype dtype, const float *src, const float *importance,
                  struct block_parts *parts) {
    const struct block_form *f = block_form(dtype);
    struct search s = {.form = f, .powers = dtype == DTYPE_MXFP4};
    const int last = (1 << f->bits) - 1;
    s.even = f->values[last] - f->values[0] == last;
    for (int k = 0; k < last; k++) s.between[k] = 0.5f * (float)(f->values[k] + f->values[k + 1]);
    float sum = 0;
    for (int j = 0; j < f->weights; j++) {
        s.x[j] = src[j] == src[j] ? src[j] : 0; // NaN is no number to come close to
        s.w[j] = importance && importance[j] > 0 ? importance[j] : 0;
        sum += s.w[j];
    }
    // Without importance, or where all of it is zero, everything counts alike; the sum may not overflow either.
    const bool weighted = sum > 0 && isfinite(sum);
    for (int j = 0; j < f->weights; j++)
        s.w[j] = weighted ? s.w[j] / sum * (float)f->weights : 1;
    *parts = (struct block_parts){.scale = {1}, .min = {1}};
    if (s.powers)
        rule_mxfp4(&s, weighted, parts);
    else if (!weighted && f->group == f->weights && f->mins)
        rule_range(&s, parts);
    else if (!weighted && dtype == DTYPE_Q5_0)
        rule_signed(&s, parts);
    else
        block_search(&s, parts);
}
