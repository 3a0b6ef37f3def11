// test_accept.c: the head of a draft that says how likely its guess holds: what it learns, and how it lies in a file.
#include "learn/accept.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

TestSuite(accept, .init = make_scratch, .fini = drop_scratch, .timeout = 60);

enum { WIDE = 24 };

// Places whose shares hang on what is read there, in a bent way that no line through it follows.
static void make_rows(struct accept_rows *r, int64_t C, int64_t n, uint64_t seed) {
    accept_rows_open(r, C, n);
    for (r->n = 0; r->n < n; r->n++) {
        float *x = r->x + r->n * C;
        for (int64_t c = 0; c < C; c++) x[c] = (float)rng_gumbel(seed, (uint64_t)c, (uint64_t)r->n) - 0.58f;
        const double z = 2 * (double)x[0] - 1.5 * fabs((double)x[1]) + (double)x[2];
        r->share[r->n] = (float)(1 / (1 + exp(-z)));
        r->sure[r->n] = (float)rng_uniform(seed, 99, (uint64_t)r->n);
    }
}

static struct accept *random_head(int64_t C, int blocks) {
    struct accept *a = accept_new(C, blocks);
    for (size_t i = 0; i < accept_count(C, blocks); i++) a->weights[i] = (float)(rng_uniform(5, 1, i) - 0.5) * 0.4f;
    return a;
}

Test(accept, gradients_are_those_of_finite_differences) {
    struct accept_rows rows;
    pool_start(2);
    make_rows(&rows, WIDE, 300, 1); // more than a batch
    struct accept *a = random_head(WIDE, 3);
    struct accept_work *w = accept_work_new(WIDE, 3);
    const size_t count = accept_count(WIDE, 3);
    float *grad = mem_array(count, sizeof *grad, "gradient");
    int32_t row[300];
    for (int i = 0; i < 300; i++) row[i] = 299 - i;
    accept_loss(a, &rows, row, 300, w, grad);
    double norm = 0;
    for (size_t i = 0; i < count; i++) norm += (double)grad[i] * (double)grad[i];
    norm = sqrt(norm / (double)count);
    for (size_t i = 0; i < count; i += i + 40 < count ? 37 : 1) {
        const float was = a->weights[i], h = 0.01f;
        a->weights[i] = was + h;
        const double up = accept_loss(a, &rows, row, 300, w, NULL);
        a->weights[i] = was - h;
        const double slope = (up - accept_loss(a, &rows, row, 300, w, NULL)) / (double)(2 * h);
        a->weights[i] = was;
        cr_expect(fabs(slope - (double)grad[i]) < 0.01 * fabs(slope) + 0.01 * norm, "weight %zu: %g by differences, %g by hand", i, slope, (double)grad[i]);
    }
    mem_free(grad);
    accept_work_free(w);
    accept_free(a);
    accept_rows_close(&rows);
    pool_start(1);
}

Test(accept, a_head_learns_what_buckets_cannot_and_the_same_with_any_threads) {
    struct accept_rows train, held_out;
    struct accept_result one, two;
    make_rows(&train, WIDE, 6000, 1);
    make_rows(&held_out, WIDE, 1000, 2);
    pool_start(1);
    struct accept *a = accept_learn(&train, &held_out, 3, &one);
    pool_start(3);
    struct accept *b = accept_learn(&train, &held_out, 3, &two);
    pool_start(1);
    cr_expect(!memcmp(a->weights, b->weights, accept_count(WIDE, 3) * sizeof *a->weights) && one.head == two.head);
    // Of what could be learned, the mean is worth nothing, noise no more, and the head most.
    const double all = one.constant - one.floor;
    cr_expect(one.constant - one.head > 0.8 * all && one.head >= one.floor, "head %.4f, constant %.4f, floor %.4f", one.head, one.constant, one.floor);
    cr_expect(fabs(one.sure - one.constant) < 0.05 * all, "buckets of noise %.4f, constant %.4f", one.sure, one.constant);
    accept_free(a);
    accept_free(b);
    accept_rows_close(&train);
    accept_rows_close(&held_out);
}

static void write_head(const char *path, const struct accept *a) {
    struct err err;
    struct gguf_out *o = gguf_out_open(path, &err);
    cr_assert(o, "%s", err.text);
    gguf_out_text(o, "general.architecture", "llama", 5);
    if (a) accept_write(a, o);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
}

Test(accept, is_read_as_it_was_written_or_refused_in_a_sentence) {
    struct err err = {""};
    struct text path = {0};
    text_fmt(&path, "%s/head.gguf", scratch);
    struct accept *a = random_head(WIDE, 3), *b = a;
    write_head(path.data, NULL);
    struct model_file *f = model_file_open(path.data, &err);
    cr_assert(f && accept_read(f, WIDE, &b, &err) && b == NULL, "%s", err.text);
    model_file_close(f);
    write_head(path.data, a);
    f = model_file_open(path.data, &err);
    cr_assert(f && accept_read(f, WIDE, &b, &err) && b, "%s", err.text);
    cr_expect(b->C == WIDE && b->blocks == 3 && !memcmp(a->weights, b->weights, accept_count(WIDE, 3) * sizeof *a->weights));
    accept_free(b);
    cr_expect(!accept_read(f, WIDE + 1, &b, &err) && !b && strstr(err.text, "lehr.accept.weights"), "%s", err.text);
    model_file_close(f);
    a->weights[100] = NAN;
    write_head(path.data, a);
    f = model_file_open(path.data, &err);
    cr_expect(f && !accept_read(f, WIDE, &b, &err) && !b && strstr(err.text, "not finite"), "%s", err.text);
    model_file_close(f);
    accept_free(a);
    text_free(&path);
}
