// quantize.cu: numbers into block formats on the GPU, with the bytes of core/dtype.c and core/quantize.c without an importance.
//
// One thread makes one block. The search of core/quantize.c is stated there; here it is the same arithmetic in the same order,
// with all weights of errors 1, so that they fall away. A compiler for GPUs makes one fused instruction of a product and a sum:
// times() is a product that stays one. Nobody waits for this in a step, so a thread keeps its block in local memory.
#include "cuda/blocks.cuh"

enum { THREADS = 64, LANES = 8 };

struct form { // block_form, with what the search derives from it
    int weights, group, bits, least, most, most_min;
    bool mins, even;
    int8_t values[VALUES_MOST];
    float between[VALUES_MOST]; // sorted uneven values: the middle between values k and k + 1
};

static __device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
static __device__ float inverse_of(float d) { return isfinite(1 / d) ? 1 / d : 0; }
static __device__ float f16_round(float x) { return from_f16(to_f16(x)); }

// ---------------------------------------------------------------------------------------------------------------
// Codes.

struct coded {
    uint8_t code[BLOCK_MOST];
    float value[BLOCK_MOST];
};

static __device__ int nearest(const struct form &f, enum dtype d, float y) {
    if (f.even) {
        const float most = (float)((1 << f.bits) - 1);
        float at = y + (float)-f.values[0];
        at = at > 0 ? at : 0; // NaN too
        at = at < most ? at : most;
        return (int)(at + 0.5f);
    }
    int best = 0;
    if (d != DTYPE_MXFP4)
        for (int k = 0; k < (1 << f.bits) - 1; k++) best += y > f.between[k];
    else
        for (int k = 1; k < 1 << f.bits; k++)
            if (fabsf((float)f.values[k] - y) < fabsf((float)f.values[best] - y)) best = k;
    return best;
}
// Weights x[0..group) as scale * value - min.
static __device__ void encode(const struct form &f, enum dtype d, const float *x, float scale, float min, struct coded *to) {
    const float inverse = inverse_of(scale);
    for (int j = 0; j < f.group; j++) {
        const int code = nearest(f, d, times(x[j] + min, inverse));
        to->code[j] = (uint8_t)code;
        to->value[j] = (float)f.values[code];
    }
}

// Sums run in eight lanes.
static __device__ float lanes_sum(const float *lane) {
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}
static __device__ float error_of(const struct form &f, const float *x, float scale, float min, const struct coded *coded) {
    float sum[LANES] = {0};
    for (int j = 0; j < f.group; j++) {
        const float off = times(scale, coded->value[j]) - min - x[j];
        sum[j % LANES] += times(off, off);
    }
    return lanes_sum(sum);
}

// ---------------------------------------------------------------------------------------------------------------
// One group by itself.

struct fit {
    float scale, min, error;
};

static __device__ struct fit fit_codes(const struct form &f, const float *x, const struct coded *coded) {
    float sum[4][LANES] = {{0}};
    for (int j = 0; j < f.group; j++) {
        const int l = j % LANES;
        sum[0][l] += coded->value[j];
        sum[1][l] += times(coded->value[j], coded->value[j]);
        sum[2][l] += x[j];
        sum[3][l] += times(coded->value[j], x[j]);
    }
    const float w = (float)f.group, wv = lanes_sum(sum[0]), wvv = lanes_sum(sum[1]), wx = lanes_sum(sum[2]), wvx = lanes_sum(sum[3]);
    struct fit fit = {0, 0, 0};
    const float det = times(w, wvv) - times(wv, wv);
    if (f.mins && det > 0) {
        fit.scale = (times(w, wvx) - times(wv, wx)) / det;
        fit.min = -(times(wvv, wx) - times(wv, wvx)) / det;
    }
    // Only formats with one group store the min with its sign.
    if (!f.mins || !(det > 0) || (fit.min < 0 && f.group < f.weights)) {
        fit.min = 0;
        fit.scale = wvv > 0 ? wvx / wvv : 0;
    }
    if (f.mins && !(det > 0) && !(wvv > 0)) fit.min = w > 0 && wx < 0 ? -wx / w : 0;
    return fit;
}
static __device__ void fit_try(const struct form &f, enum dtype d, const float *x, float scale, float min, struct fit *best, struct coded *room) {
    encode(f, d, x, scale, min, room);
    struct fit fit = fit_codes(f, x, room);
    fit.error = error_of(f, x, fit.scale, fit.min, room);
    if (fit.error < best->error) *best = fit;
}

enum { TRIALS_EACH_WAY = 6, TURNS = 6, REFITS = 3 };
static __device__ struct fit fit_group(const struct form &f, enum dtype d, const float *x, struct coded *room) {
    const int n_values = 1 << f.bits;
    float lo = x[0], hi = lo;
    struct fit best = {0, 0, __uint_as_float(0x7f800000)};
    for (int j = 1; j < f.group; j++) {
        lo = x[j] < lo ? x[j] : lo;
        hi = x[j] > hi ? x[j] : hi;
    }
    if (f.mins) {
        if (f.group < f.weights && lo > 0) lo = 0;
        for (int t = -TRIALS_EACH_WAY; t <= 2 * TRIALS_EACH_WAY; t++)
            fit_try(f, d, x, (hi - lo) / ((float)(n_values - 1) + times(0.2f, (float)t)), -lo, &best, room);
    } else {
        const float most = -lo > hi ? lo : hi;
        for (int end = 0; end < 2; end++)
            for (int t = -TRIALS_EACH_WAY; t <= TRIALS_EACH_WAY; t++) {
                const float stretch = 1 + times(0.4f, (float)t) / (float)n_values;
                fit_try(f, d, x, most / times((float)f.values[end ? n_values - 1 : 0], stretch), 0, &best, room);
            }
    }
    for (int turn = 0; turn < TURNS; turn++) {
        const float before = best.error;
        fit_try(f, d, x, best.scale, best.min, &best, room);
        if (!(best.error < before)) break;
    }
    return best;
}

// ---------------------------------------------------------------------------------------------------------------
// A block of groups.

static __device__ int clamp_round(float x, int least, int most) {
    if (!(x > (float)least)) return least;
    return x < (float)most ? (int)floorf(x + 0.5f) : most;
}

static __device__ float group_choose(const struct form &f, enum dtype d, const float *x, int g, const struct fit *fit, struct block_parts *p, struct coded *room) {
    const int at = g * f.group, scale = clamp_round(times(fit->scale, inverse_of(p->d)), f.least, f.most);
    const int min = f.mins ? clamp_round(times(fit->min, inverse_of(p->dmin)), 0, f.most_min) : 0;
    const int span = f.most > f.least, span_min = f.mins && f.most_min > 1;
    const float infinite = __uint_as_float(0x7f800000);
    float best = infinite;
    for (int i = scale - span; i <= scale + span; i++)
        for (int k = min - span_min; k <= min + span_min; k++) {
            if (i < f.least || i > f.most || (f.mins && (k < 0 || k > f.most_min))) continue;
            const float by = times(p->d, (float)i), less = times(p->dmin, (float)(f.mins ? k : 0));
            encode(f, d, x + at, by, less, room);
            const float error = error_of(f, x + at, by, less, room);
            if (!(error < best) && best < infinite) continue;
            best = error;
            p->scale[g] = (int8_t)i;
            p->min[g] = (uint8_t)(f.mins ? k : 0);
            for (int j = 0; j < f.group; j++) p->code[at + j] = room->code[j];
        }
    return best;
}
static __device__ float block_groups(const struct form &f, enum dtype d, const float *x, const struct fit *fits, struct block_parts *p, struct coded *room) {
    float sum = 0;
    for (int g = 0; g < f.weights / f.group; g++) sum += group_choose(f, d, x, g, &fits[g], p, room);
    return sum;
}

// Products of a double here are of few bits and exact, but for those of the last two lines.
static __device__ void block_refit(const struct form &f, const float *x, struct block_parts *p) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int j = 0; j < f.weights; j++) {
        const int g = j / f.group;
        const double a = (double)p->scale[g] * f.values[p->code[j]], b = -(double)p->min[g];
        aa += a * a, ab += a * b, bb += b * b, ax += a * (double)x[j], bx += b * (double)x[j];
    }
    const double det = aa * bb - ab * ab;
    double d = aa > 0 ? ax / aa : 0, dmin = 0;
    if (f.mins && det > 1e-9 * aa * bb) {
        d = (__dmul_rn(bb, ax) - __dmul_rn(ab, bx)) / det;
        dmin = (__dmul_rn(aa, bx) - __dmul_rn(ab, ax)) / det;
    }
    p->d = f16_round((float)d);
    p->dmin = f16_round((float)dmin);
}

static __device__ void block_search(const struct form &f, enum dtype d, const float *x, struct block_parts *best) {
    struct fit fits[GROUPS_MOST];
    struct coded room;
    float scale = 0, min = 0;
    const int groups = f.weights / f.group;
    for (int g = 0; g < groups; g++) {
        fits[g] = fit_group(f, d, x + g * f.group, &room);
        if (fabsf(fits[g].scale) > fabsf(scale)) scale = fits[g].scale;
        if (fabsf(fits[g].min) > fabsf(min)) min = fits[g].min;
    }
    for (int g = 0; g < GROUPS_MOST; g++) best->scale[g] = 0, best->min[g] = 0;
    best->d = f16_round(scale / (float)(f.least < 0 ? f.least : f.most));
    best->dmin = f16_round(min / (float)f.most_min);
    float error = block_groups(f, d, x, fits, best, &room);
    for (int i = 0; i < REFITS; i++) {
        struct block_parts trial = *best;
        block_refit(f, x, &trial);
        const float now = block_groups(f, d, x, fits, &trial, &room);
        if (!(now < error)) break;
        error = now;
        *best = trial;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Blocks by a rule.

// d = (hi - lo) / most code, dmin = -lo, codes by adding one half and cutting off.
static __device__ void rule_range(const struct form &f, const float *x, struct block_parts *p) {
    float lo = x[0], hi = lo;
    for (int j = 1; j < QK; j++) {
        lo = x[j] < lo ? x[j] : lo;
        hi = x[j] > hi ? x[j] : hi;
    }
    const int most = (1 << f.bits) - 1;
    p->d = (hi - lo) / (float)most;
    p->dmin = -lo;
    const float inverse = inverse_of(p->d);
    for (int j = 0; j < QK; j++) {
        const float at = times(x[j] - lo, inverse) + 0.5f;
        p->code[j] = (uint8_t)(!(at > 0) ? 0 : at < (float)most ? (int)at : most);
    }
}

// The value of largest magnitude becomes code 0: x / d + half, cut off. Q4_0 and Q5_0.
static __device__ void rule_signed(enum dtype d, const float *x, struct block_parts *p) {
    const int half = d == DTYPE_Q4_0 ? 8 : 16;
    float most = 0;
    for (int j = 0; j < QK; j++)
        if (fabsf(x[j]) > fabsf(most)) most = x[j];
    p->d = most / (float)-half;
    const float inverse = inverse_of(p->d);
    for (int j = 0; j < QK; j++) {
        const float by = times(x[j], inverse), at = by + ((float)half + 0.5f);
        const int last = 2 * half - 1;
        if (d == DTYPE_Q4_0) p->code[j] = (uint8_t)(!(by > -8.5f) ? (by == by ? 0 : 8) : min((int)at, last)); // NaN becomes 0, which is code 8
        else p->code[j] = (uint8_t)(!(at > 0) ? 0 : at < (float)last ? (int)at : last);
    }
}

// d = 2^(floor(log2 largest) - 2), halved because the values are doubled.
static __device__ void rule_mxfp4(const struct form &f, const float *x, struct block_parts *p, struct coded *room) {
    float most = 0;
    for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(x[j]));
    const int e = !(most > 0) ? -128 : isinf(most) ? 127 : ilogbf(most) - 3;
    p->d = ldexpf(1, e < -128 ? -128 : e > 127 ? 127 : e);
    encode(f, DTYPE_MXFP4, x, p->d, 0, room);
    for (int j = 0; j < QK; j++) p->code[j] = room->code[j];
}

static __device__ void quantize_q8_0(const float *x, struct block_q8_0 *b) {
    float most = 0;
    for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(x[j]));
    const float d = most / 127, inverse = inverse_of(d);
    b->d = to_f16(d);
    for (int j = 0; j < QK; j++) {
        const float code = times(x[j], inverse);
        b->q[j] = (int8_t)(code == code ? roundf(code) : 0);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Bits: the joins of core/blocks.c and core/blocks_k.c, byte by byte.

static __device__ void nibbles_join(const uint8_t *code, uint8_t *q) {
    for (int j = 0; j < QK / 2; j++) q[j] = (uint8_t)((code[j] & 15) | (code[j + QK / 2] & 15) << 4);
}
static __device__ void fifth_join(const uint8_t *code, uint8_t *high) {
    for (int i = 0; i < 4; i++) {
        high[i] = 0;
        for (int j = 0; j < 8; j++) high[i] |= (uint8_t)((code[8 * i + j] >> 4) << j);
    }
}
// The bits [from, from + bits) of the codes: a run of 32 bytes holds 8 / bits stretches of 32.
static __device__ void plane_join(const uint8_t *code, int from, int bits, uint8_t *q) {
    const int per_run = 8 / bits, mask = (1 << bits) - 1;
    for (int i = 0; i < QK_K * bits / 8; i++) {
        q[i] = 0;
        for (int k = 0; k < per_run; k++) q[i] |= (uint8_t)((code[32 * (i / 32 * per_run + k) + i % 32] >> from & mask) << k * bits);
    }
}
static __device__ void six_bits_join(const struct block_parts *p, uint8_t *s) {
    for (int g = 0; g < 4; g++) {
        const int scale = p->scale[g + 4], min = p->min[g + 4];
        s[g] = (uint8_t)(p->scale[g] | scale >> 4 << 6);
        s[g + 4] = (uint8_t)(p->min[g] | min >> 4 << 6);
        s[g + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}
// A number into the two bytes at p.
static __device__ void put_f16(void *p, float x) { *(uint16_t *)p = to_f16(x); }

// Formats of 32 weights.
static __device__ void small_join(enum dtype d, const struct block_parts *p, void *block) {
    switch (d) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        put_f16(block, p->d);
        nibbles_join(p->code, ((struct block_q4_0 *)block)->q);
        break;
    case DTYPE_Q4_1:
        put_f16(block, p->d), put_f16((uint16_t *)block + 1, -p->dmin);
        nibbles_join(p->code, ((struct block_q4_1 *)block)->q);
        break;
    case DTYPE_Q5_0:
        put_f16(block, p->d);
        nibbles_join(p->code, ((struct block_q5_0 *)block)->q);
        fifth_join(p->code, ((struct block_q5_0 *)block)->high);
        break;
    case DTYPE_Q5_1:
        put_f16(block, p->d), put_f16((uint16_t *)block + 1, -p->dmin);
        nibbles_join(p->code, ((struct block_q5_1 *)block)->q);
        fifth_join(p->code, ((struct block_q5_1 *)block)->high);
        break;
    default: { // MXFP4
        struct block_mxfp4 *b = (struct block_mxfp4 *)block;
        const int e = p->d > 0 ? ilogbf(p->d) + 128 : 0;
        b->e = (uint8_t)(e < 0 ? 0 : e > 255 ? 255 : e);
        nibbles_join(p->code, b->q);
    }
    }
}

// Formats of 256.
static __device__ void large_join(enum dtype d, const struct block_parts *p, void *block) {
    switch (d) {
    case DTYPE_Q2_K: {
        struct block_q2_k *b = (struct block_q2_k *)block;
        put_f16(&b->d, p->d), put_f16(&b->dmin, p->dmin);
        for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)(p->scale[g] | p->min[g] << 4);
        plane_join(p->code, 0, 2, b->q);
        break;
    }
    case DTYPE_Q3_K: {
        struct block_q3_k *b = (struct block_q3_k *)block;
        put_f16(&b->d, p->d);
        for (int i = 0; i < 12; i++) b->scales[i] = 0;
        for (int g = 0; g < 16; g++) {
            const int s = p->scale[g] + 32;
            b->scales[g % 8] |= (uint8_t)((s & 15) << (g / 8 * 4));
            b->scales[8 + g % 4] |= (uint8_t)(s >> 4 << (g / 4 * 2));
        }
        plane_join(p->code, 0, 2, b->q);
        plane_join(p->code, 2, 1, b->high);
        break;
    }
    case DTYPE_Q4_K: {
        struct block_q4_k *b = (struct block_q4_k *)block;
        put_f16(&b->d, p->d), put_f16(&b->dmin, p->dmin);
        six_bits_join(p, b->scales);
        plane_join(p->code, 0, 4, b->q);
        break;
    }
    case DTYPE_Q5_K: {
        struct block_q5_k *b = (struct block_q5_k *)block;
        put_f16(&b->d, p->d), put_f16(&b->dmin, p->dmin);
        six_bits_join(p, b->scales);
        plane_join(p->code, 0, 4, b->q);
        plane_join(p->code, 4, 1, b->high);
        break;
    }
    case DTYPE_Q6_K: {
        struct block_q6_k *b = (struct block_q6_k *)block;
        put_f16(&b->d, p->d);
        for (int g = 0; g < 16; g++) b->scales[g] = p->scale[g];
        for (int i = 0; i < QK_K / 2; i++) {
            const uint8_t *code = p->code + i / 64 * 128 + i % 64;
            b->low[i] = (uint8_t)((code[0] & 15) | (code[64] & 15) << 4);
        }
        plane_join(p->code, 4, 2, b->high);
        break;
    }
    default: { // IQ4_XS
        struct block_iq4_xs *b = (struct block_iq4_xs *)block;
        put_f16(&b->d, p->d);
        uint32_t high = 0;
        for (int g = 0; g < 8; g++) {
            const int s = p->scale[g] + 32;
            b->scales_low[g / 2] = (uint8_t)((g % 2 ? b->scales_low[g / 2] : 0) | (s & 15) << (g % 2 * 4));
            high |= (uint32_t)(s >> 4) << 2 * g;
            nibbles_join(p->code + 32 * g, b->q + 16 * g);
        }
        b->scales_high = (uint16_t)high;
    }
    }
}

// ---------------------------------------------------------------------------------------------------------------

__global__ void quantize_kernel(struct tensor dst, struct tensor src, struct form f) {
    const int64_t blocks = dst.cols / f.weights, at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / blocks;
    if (i >= dst.rows) return;
    const float *from = row_f32(src, i) + at % blocks * f.weights;
    unsigned char *block = (unsigned char *)row_at(dst, i) + (size_t)(at % blocks) * coded_block_bytes(dst.dtype);
    if (dst.dtype == DTYPE_Q8_0) {
        quantize_q8_0(from, (struct block_q8_0 *)block);
        return;
    }
    struct block_parts parts;
    struct coded room;
    float x[BLOCK_MOST];
    // NaN is no number to come close to; Q4_0 knows it by its code.
    for (int j = 0; j < f.weights; j++) x[j] = from[j] == from[j] || dst.dtype == DTYPE_Q4_0 ? from[j] : 0;
    parts.dmin = 0;
    if (dst.dtype == DTYPE_Q4_0 || dst.dtype == DTYPE_Q5_0) rule_signed(dst.dtype, x, &parts);
    else if (dst.dtype == DTYPE_Q4_1 || dst.dtype == DTYPE_Q5_1) rule_range(f, x, &parts);
    else if (dst.dtype == DTYPE_MXFP4) rule_mxfp4(f, x, &parts, &room);
    else block_search(f, dst.dtype, x, &parts);
    if (f.weights == QK) small_join(dst.dtype, &parts, block);
    else large_join(dst.dtype, &parts, block);
}

void cuda_quantize(const struct tensor *dst, const struct tensor *src) {
    struct form f;
    memset(&f, 0, sizeof f);
    f.weights = QK;
    const struct block_form *form = dst->dtype == DTYPE_Q8_0 ? NULL : block_form(dst->dtype);
    if (form) {
        const int last = (1 << form->bits) - 1;
        f.weights = form->weights, f.group = form->group, f.bits = form->bits, f.least = form->least, f.most = form->most;
        f.most_min = form->most_min, f.mins = form->mins, f.even = form->values[last] - form->values[0] == last;
        memcpy(f.values, form->values, (size_t)last + 1);
        for (int k = 0; k < last; k++) f.between[k] = 0.5f * (float)(form->values[k] + form->values[k + 1]);
    }
    const int64_t blocks = ceil_div(dst->rows * (dst->cols / f.weights), THREADS);
    if (blocks) LAUNCH((quantize_kernel), blocks, THREADS, 0, *dst, *src, f);
}
