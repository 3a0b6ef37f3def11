// test_attend.c: what the op table does not ask of attention on a GPU: gradients of PRECISION_BF16, and bits of long ranges.
#include "backend.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/cuda/place.h"

static const struct backend *cuda(void) { return place_gpu(); }

static void *sent(const void *from, size_t bytes) {
    struct err err;
    void *p = cuda()->alloc(bytes, "memory of a test", &err);
    cr_assert(p, "%s", err.text);
    if (from) cuda()->upload(p, from, bytes);
    return p;
}
static float *random_numbers(uint64_t stream, int64_t count, double spread) {
    float *x = mem_array((size_t)count, sizeof *x, "numbers");
    for (int64_t i = 0; i < count; i++) x[i] = (float)(spread * rng_normal(5, stream, (uint64_t)i));
    return x;
}

// Rows, on the device: n = segments * segment of them, with documents that begin anywhere in a segment.
struct shape { int64_t segments, segment, H, G, D; uint32_t drop; };
struct run {
    struct shape s;
    struct attend_back_args back;
};
enum { TENSORS = 8 }; // q k v dout out dq dk dv
static void run_open(struct run *r, const struct shape *s) {
    r->s = *s;
    const int64_t n = s->segments * s->segment, wide = s->H * s->D, narrow = s->G * s->D;
    struct tensor *const to[TENSORS] = {&r->back.q, &r->back.k, &r->back.v, &r->back.dout, &r->back.out, &r->back.dq, &r->back.dk, &r->back.dv};
    const bool few[TENSORS] = {false, true, true, false, false, false, true, true};
    memset(&r->back, 0, sizeof r->back);
    for (int t = 0; t < TENSORS; t++) {
        float *x = random_numbers((uint64_t)t, n * (few[t] ? narrow : wide), 1);
        *to[t] = tensor_f32(sent(x, (size_t)(n * (few[t] ? narrow : wide)) * sizeof *x), n, few[t] ? narrow : wide);
        mem_free(x);
    }
    int32_t *lo = mem_array((size_t)(2 * n), sizeof *lo, "ranges"), *hi = lo + n, document = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i % s->segment == 0 || rng_below(5, 77, (uint64_t)i, 50) == 0) document = (int32_t)i;
        lo[i] = document, hi[i] = (int32_t)i + 1;
        if (i % 41 == 7) hi[i] = lo[i]; // sees nothing
    }
    r->back.lo = sent(lo, (size_t)n * sizeof *lo), r->back.hi = sent(hi, (size_t)n * sizeof *hi);
    mem_free(lo);
    r->back.lse = sent(NULL, (size_t)(n * s->H) * sizeof(float));
    r->back.heads = s->H, r->back.kv_heads = s->G, r->back.head_size = s->D, r->back.segment = s->segment;
    r->back.scale = (float)(1 / sqrt((double)s->D));
    r->back.drop = (struct dropout){3, 7, 11, s->drop};
    const struct attend_back_args *b = &r->back;
    cuda()->attend(&(struct attend_args){.out = b->out, .q = b->q, .k = b->k, .v = b->v, .lo = b->lo, .hi = b->hi, .lse = (float *)(uintptr_t)b->lse,
                                         .heads = s->H, .kv_heads = s->G, .head_size = s->D, .scale = b->scale, .drop = b->drop});
}
static void run_close(struct run *r) {
    const struct attend_back_args *b = &r->back;
    void *const all[] = {b->q.data, b->k.data, b->v.data, b->dout.data, b->out.data, b->dq.data, b->dk.data, b->dv.data,
                         (void *)(uintptr_t)b->lo, (void *)(uintptr_t)b->hi, (void *)(uintptr_t)b->lse};
    for (size_t i = 0; i < COUNT_OF(all); i++) cuda()->free(all[i]);
}
// dq, dk and dv one after the other. The caller frees them.
static float *gradients(const struct run *r, enum precision precision, int64_t *count) {
    struct attend_back_args b = r->back;
    const struct tensor *of[] = {&b.dq, &b.dk, &b.dv};
    b.precision = precision;
    cuda()->attend_back(&b);
    *count = b.dq.rows * (b.dq.cols + 2 * b.dk.cols);
    float *all = mem_array((size_t)*count, sizeof *all, "gradients"), *at = all;
    for (int i = 0; i < 3; i++) cuda()->download(at, of[i]->data, (size_t)(of[i]->rows * of[i]->cols) * sizeof *at), at += of[i]->rows * of[i]->cols;
    return all;
}

static const struct shape shapes[] = {
    {2, 70, 4, 2, 64, 0}, {1, 150, 2, 1, 128, 13107}, {3, 33, 3, 1, 33, 6554}, {2, 40, 2, 2, 80, 0}, {1, 70, 2, 1, 256, 0}, {2, 20, 6, 2, 20, 0}, {1, 100, 7, 1, 96, 0},
};

TestSuite(cuda_attend, .timeout = 600);

// Factors of 8 bits are off by 2^-9 of themselves at most, on average about half of it; in gradients four such meet in sums of random
// signs, so that the root of the mean square of the error is some 2^-8 of that of the gradients.
Test(cuda_attend, gradients_in_bf16_are_near_those_in_f32) {
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        struct run r;
        int64_t count;
        run_open(&r, &shapes[k]);
        float *exact = gradients(&r, PRECISION_F32, &count), *rounded = gradients(&r, PRECISION_BF16, &count);
        double size = 0, error = 0;
        bool same = true;
        for (int64_t i = 0; i < count; i++) {
            size += (double)exact[i] * (double)exact[i], error += pow((double)exact[i] - (double)rounded[i], 2);
            same = same && exact[i] == rounded[i];
        }
        cr_expect(sqrt(error / size) < 0x1p-7, "D %lld: off by %.3g", (long long)shapes[k].D, sqrt(error / size));
        cr_log_info("D %lld: gradients of bf16 are off by %.2g of their size%s", (long long)shapes[k].D, sqrt(error / size), same ? ": they are those of f32" : "");
        mem_free(exact), mem_free(rounded);
        run_close(&r);
    }
}

Test(cuda_attend, gradients_do_not_depend_on_other_segments) {
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        if (shapes[k].segments == 1) continue;
        struct run r;
        int64_t count;
        run_open(&r, &shapes[k]);
        float *whole = gradients(&r, PRECISION_BF16, &count);
        // The last segment alone: its rows are numbered from 0 then.
        const int64_t from = (r.s.segments - 1) * r.s.segment, rows = r.s.segment, n = r.s.segments * rows;
        struct run last = r;
        struct attend_back_args *b = &last.back;
        struct tensor *const all[] = {&b->q, &b->k, &b->v, &b->dout, &b->out, &b->dq, &b->dk, &b->dv};
        for (size_t t = 0; t < COUNT_OF(all); t++) *all[t] = tensor_rows(*all[t], from, rows);
        int32_t *ranges = mem_array((size_t)(2 * n), sizeof *ranges, "ranges");
        cuda()->download(ranges, r.back.lo, (size_t)n * sizeof *ranges), cuda()->download(ranges + n, r.back.hi, (size_t)n * sizeof *ranges);
        for (int64_t i = 0; i < 2 * n; i++) ranges[i] -= (int32_t)from;
        int32_t *lo = sent(ranges + from, (size_t)rows * sizeof *lo), *hi = sent(ranges + n + from, (size_t)rows * sizeof *hi);
        b->lo = lo, b->hi = hi, b->lse += from * r.s.H, b->drop.row += from;
        float *alone = gradients(&last, PRECISION_BF16, &count);
        const int64_t columns[] = {b->dq.cols, b->dk.cols, b->dv.cols};
        const float *x = whole, *y = alone;
        for (int t = 0; t < 3; t++) {
            cr_expect(memcmp(x + from * columns[t], y, (size_t)(rows * columns[t]) * sizeof *x) == 0, "D %lld: gradient %d", (long long)shapes[k].D, t);
            x += n * columns[t], y += rows * columns[t];
        }
        mem_free(ranges), mem_free(whole), mem_free(alone);
        cuda()->free(lo), cuda()->free(hi);
        run_close(&r);
    }
}
