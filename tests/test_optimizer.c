// The optimizers' rows: held to published implementations (tests/make_optimizer_goldens.py), to the properties their papers
// state, and to a resume that changes no bit.
#include "learn/learn.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench {
    struct model *model;
    struct optimizer *optimizer;
    const struct optimizer_row *row;
};

static struct bench bench_of(const char *name, const char *level, const char *family, double decay) {
    struct err err = {{0}};
    struct bench x = {.row = optimizer_find(name)};
    cr_assert_not_null(x.row, "%s", name);
    struct model_config c = {.family = family_find(family), .ctx = 32, .L = 1, .C = 32, .H = 2, .G = 1, .D = 16, .F = 48, .V = 64,
                             .tied = false};
    config_derive(&c);
    const struct backend *b = backend_cpu(level, &err);
    cr_assert(b && config_check(&c, &err), "%s", err.text);
    x.model = model_new(&c, b, DTYPE_F32, 1, &err);
    cr_assert_not_null(x.model, "%s", err.text);
    x.optimizer = optimizer_new(x.model, &(struct optimizer_options){.row = x.row, .beta1 = x.row->beta1, .beta2 = x.row->beta2,
                                                                     .eps = 1e-8, .weight_decay = decay, .momentum = 0.95}, &err);
    cr_assert_not_null(x.optimizer, "%s", err.text);
    return x;
}

static void bench_free(struct bench *x) {
    optimizer_free(x->optimizer);
    model_free(x->model);
}

static struct param *param_named(const struct bench *x, const char *name) {
    for (int i = 0; i < x->model->n_params; i++)
        if (!strcmp(x->model->params[i].name, name)) return &x->model->params[i];
    cr_assert_fail("no %s", name);
    return NULL;
}

static float *weights(const struct param *p) { return p->w.data; }
static float *gradient(const struct param *p) { return p->grad.data; }
static int64_t count(const struct param *p) { return p->rows * p->cols; }

static void random_gradients(const struct bench *x, uint64_t seed, double size) {
    for (int i = 0; i < x->model->n_params; i++)
        for (int64_t k = 0; k < count(&x->model->params[i]); k++)
            gradient(&x->model->params[i])[k] = (float)(size * rng_normal(seed, (uint64_t)i, (uint64_t)k));
}

static const struct {
    const char *name;
    double k;
} golden_tensors[] = {{"blk.0.ffn_up.weight", 1}, {"blk.0.ffn_down.weight", 2}, {"blk.0.attn_norm.weight", 3}};

static void check_golden_line(const struct bench *x, const char *name, char *values) {
    const struct param *p = param_named(x, name);
    int64_t i = 0;
    for (char *at = values, *end;; at = end, i += 37) {
        double expected = strtod(at, &end);
        if (end == at) break;
        cr_expect_float_eq(weights(p)[i], expected, 2e-6, "%s, %s[%lld]: %.9g, expected %.9g",
                           x->row->name, name, (long long)i, (double)weights(p)[i], expected);
    }
    cr_expect_geq(i, count(p), "%s, %s: %lld values", x->row->name, name, (long long)i);
}

Test(optimizers, six_steps_equal_published_implementations) {
    static const char *const levels[] = {"plain", NULL};
    for (int l = 0; l < 2; l++) {
        struct text lines = {0};
        struct err err;
        cr_assert(file_read_all("tests/golden/optimizers.txt", 1 << 20, &lines, &err), "%s", err.text);
        struct bench x = {0};
        for (char *line = strtok(lines.data, "\n"); line; line = strtok(NULL, "\n")) {
            char name[32], tensor[64];
            int used;
            cr_assert_eq(sscanf(line, "%31s %63s%n", name, tensor, &used), 2);
            if (!x.row || strcmp(x.row->name, name) != 0) {
                if (x.row) bench_free(&x);
                x = bench_of(name, levels[l], "llama", strcmp(name, "lamb") ? 0.1 : 0);
                for (size_t g = 0; g < COUNT_OF(golden_tensors); g++) {
                    struct param *p = param_named(&x, golden_tensors[g].name);
                    for (int64_t i = 0; i < count(p); i++) weights(p)[i] = (float)cos(0.37 * (double)i + golden_tensors[g].k);
                }
                for (int step = 1; step <= 6; step++) {
                    for (size_t g = 0; g < COUNT_OF(golden_tensors); g++) {
                        struct param *p = param_named(&x, golden_tensors[g].name);
                        for (int64_t i = 0; i < count(p); i++)
                            gradient(p)[i] = (float)(fmod(sin(12.9898 * (double)i + 78.233 * step + golden_tensors[g].k) * 43758.5453, 1) * 0.01);
                    }
                    optimizer_step(x.optimizer, 0.01, 1, step);
                }
            }
            check_golden_line(&x, tensor, line + used);
        }
        bench_free(&x);
        text_free(&lines);
    }
}

// What a first step moves each weight of a hidden matrix by, decay off.
static void first_step(struct bench *x, double size, float *moved) {
    struct param *p = param_named(x, "blk.0.ffn_up.weight");
    float before[48 * 32];
    memcpy(before, weights(p), sizeof before);
    random_gradients(x, 5, size);
    optimizer_step(x->optimizer, 0.01, optimizer_grad_norm(x->optimizer), 1);
    for (int64_t i = 0; i < count(p); i++) moved[i] = weights(p)[i] - before[i];
}

// The size of a gradient does not matter to any rule but plain momentum, which has it in its step.
Test(optimizers, steps_do_not_depend_on_the_size_of_gradients_but_for_sgd) {
    for (int r = 0; r < optimizer_count; r++) {
        struct bench a = bench_of(optimizers[r].name, NULL, "llama", 0), b = bench_of(optimizers[r].name, NULL, "llama", 0);
        float one[48 * 32], many[48 * 32];
        double worst = 0;
        first_step(&a, 1, one);
        first_step(&b, 1000, many);
        for (size_t i = 0; i < COUNT_OF(one); i++) worst = fmax(worst, fabs((double)one[i] - (double)many[i]));
        if (strcmp(optimizers[r].name, "sgd")) cr_expect_lt(worst, 2e-5, "%s: %g", optimizers[r].name, worst);
        else cr_expect_gt(worst, 1, "%s: %g", optimizers[r].name, worst);
        bench_free(&a), bench_free(&b);
    }
}

Test(optimizers, adam_and_lion_move_every_weight_by_the_rate) {
    static const char *const names[] = {"adamw", "nadamw", "lion"};
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        struct bench x = bench_of(names[k], NULL, "llama", 0);
        float moved[48 * 32];
        first_step(&x, 1, moved);
        double expected = 0.01; // NAdam looks ahead: b1 / (1 + b1) + 1 - b1... of the first gradient, over its size
        if (!strcmp(names[k], "nadamw")) expected *= 0.9 * 0.1 / (1 - 0.81) + 1;
        for (size_t i = 0; i < COUNT_OF(moved); i++)
            cr_assert_float_eq(fabs((double)moved[i]), expected, 1e-6, "%s: %g", names[k], (double)moved[i]);
        bench_free(&x);
    }
}

// Largest and smallest eigenvalue of d d^T (rows <= cols) by iteration on it and on what is missing to its largest.
static void singular_values(const float *d, int rows, int cols, double *largest, double *smallest) {
    static double gram[48 * 48];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < rows; j++) {
            gram[i * rows + j] = 0;
            for (int k = 0; k < cols; k++) gram[i * rows + j] += (double)d[i * cols + k] * (double)d[j * cols + k];
        }
    double values[2] = {0};
    for (int which = 0; which < 2; which++) {
        double x[48], y[48];
        for (int i = 0; i < rows; i++) x[i] = rng_normal(9, 9, (uint64_t)i);
        for (int n = 0; n < 3000; n++) {
            double norm = 0;
            for (int i = 0; i < rows; i++) {
                y[i] = which ? values[0] * x[i] : 0;
                for (int j = 0; j < rows; j++) y[i] += (which ? -1 : 1) * gram[i * rows + j] * x[j];
                norm += y[i] * y[i];
            }
            for (int i = 0; i < rows; i++) x[i] = y[i] / sqrt(norm);
            values[which] = sqrt(norm);
        }
    }
    *largest = sqrt(values[0]);
    *smallest = sqrt(fmax(values[0] - values[1], 0));
}

Test(optimizers, muon_gives_hidden_matrices_a_flat_spectrum_and_the_rest_to_adam) {
    struct bench x = bench_of("muon", NULL, "llama", 0), adam = bench_of("adamw", NULL, "llama", 0);
    struct param *down = param_named(&x, "blk.0.ffn_down.weight"); // [32, 48]
    float before[32 * 48];
    memcpy(before, weights(down), sizeof before);
    random_gradients(&x, 5, 1), random_gradients(&adam, 5, 1);
    optimizer_step(x.optimizer, 0.01, 1, 1), optimizer_step(adam.optimizer, 0.01, 1, 1);
    double size = 0.01 * 0.2 * sqrt(48), largest, smallest;
    for (int64_t i = 0; i < count(down); i++) before[i] = (float)((double)(before[i] - weights(down)[i]) / size);
    singular_values(before, 32, 48, &largest, &smallest);
    cr_expect(largest < 1.2 && smallest > 0.5, "singular values from %g to %g", smallest, largest);
    static const char *const others[] = {"token_embd.weight", "output.weight", "blk.0.attn_norm.weight"};
    for (size_t k = 0; k < COUNT_OF(others); k++) {
        const struct param *p = param_named(&x, others[k]), *q = param_named(&adam, others[k]);
        cr_expect_eq(memcmp(p->w.data, q->w.data, (size_t)count(p) * 4), 0, "%s is not AdamW's", others[k]);
    }
    bench_free(&x), bench_free(&adam);
}

// Steps of a gradient of rank one, whose square is of rank one: the factors say it exactly, so the step is that of the
// unfactored square.
Test(optimizers, adafactor_reproduces_squares_of_rank_one) {
    struct bench x = bench_of("adafactor", NULL, "llama", 0);
    struct param *p = param_named(&x, "blk.0.ffn_up.weight");
    random_gradients(&x, 1, 1);
    double size = 0;
    float before[48 * 32];
    memcpy(before, weights(p), sizeof before);
    for (int64_t i = 0; i < count(p); i++) {
        gradient(p)[i] = (float)((1 + (double)(i / 32) * 0.3) * (0.5 + (double)(i % 32)));
        size += (double)weights(p)[i] * (double)weights(p)[i] / (double)count(p);
    }
    optimizer_step(x.optimizer, 0.01, 1, 1);
    for (int64_t i = 0; i < count(p); i++) // u = 1 everywhere
        cr_assert_float_eq((double)before[i] - (double)weights(p)[i], 0.01 * sqrt(size), 2e-7);
    bench_free(&x);
}

Test(optimizers, lamb_moves_a_matrix_by_the_rate_of_its_own_size) {
    struct bench x = bench_of("lamb", NULL, "llama", 0.1);
    struct param *p = param_named(&x, "blk.0.ffn_up.weight");
    float before[48 * 32];
    memcpy(before, weights(p), sizeof before);
    random_gradients(&x, 5, 1);
    optimizer_step(x.optimizer, 0.01, 1, 1);
    double moved = 0, size = 0;
    for (int64_t i = 0; i < count(p); i++) {
        moved += pow((double)weights(p)[i] - (double)before[i], 2);
        size += pow((double)before[i], 2);
    }
    cr_expect_float_eq(sqrt(moved / size), 0.01, 1e-6);
    bench_free(&x);
}

Test(optimizers, schedule_free_judges_the_mean_of_its_fast_points) {
    struct bench x = bench_of("schedule-free", NULL, "llama", 0);
    struct param *p = param_named(&x, "blk.0.ffn_up.weight");
    float before[48 * 32], trained[48 * 32];
    memcpy(before, weights(p), sizeof before);
    double fast[3] = {(double)before[7]}, mean = 0;
    for (int step = 1; step <= 3; step++) {
        random_gradients(&x, 5, 1); // the same each time: every fast step is the rate, in one direction
        optimizer_step(x.optimizer, 0.01, 1, step);
        fast[step - 1] = (double)before[7] - step * 0.01 * (gradient(p)[7] > 0 ? 1 : -1);
        mean += fast[step - 1] / 3;
    }
    memcpy(trained, weights(p), sizeof trained);
    cr_expect_float_eq((double)trained[7], 0.9 * mean + 0.1 * fast[2], 1e-6);
    cr_assert(optimizer_swap(x.optimizer));
    cr_expect_float_eq((double)weights(p)[7], mean, 1e-6, "%g, mean %g", (double)weights(p)[7], mean);
    cr_assert(optimizer_swap(x.optimizer));
    cr_expect_eq(memcmp(trained, weights(p), sizeof trained), 0, "and back, bit for bit");
    struct bench adam = bench_of("adamw", NULL, "llama", 0);
    cr_expect_not(optimizer_swap(adam.optimizer));
    bench_free(&x), bench_free(&adam);
}

// Under muP a wider matrix gets a step with the same spectrum, whatever its width.
Test(optimizers, muon_under_mup_keeps_the_spectrum_of_a_step) {
    struct bench x = bench_of("muon", NULL, "granite", 0);
    struct param *down = param_named(&x, "blk.0.ffn_down.weight");
    float before[32 * 48];
    double largest, smallest;
    memcpy(before, weights(down), sizeof before);
    random_gradients(&x, 5, 1);
    optimizer_step(x.optimizer, 0.01, 1, 1);
    for (int64_t i = 0; i < count(down); i++) before[i] = (float)((double)(before[i] - weights(down)[i]) / (0.01 * 0.2 * 16));
    singular_values(before, 32, 48, &largest, &smallest);
    cr_expect(largest < 1.2 && smallest > 0.5, "singular values from %g to %g", smallest, largest);
    bench_free(&x);
}

Test(optimizers, memory_is_what_was_foretold_and_names_are_found) {
    for (int r = 0; r < optimizer_count; r++) {
        cr_expect_eq(optimizer_find(optimizers[r].name), &optimizers[r]);
        struct bench x = bench_of(optimizers[r].name, "plain", "llama", 0);
        size_t foretold = optimizer_bytes(x.row, &x.model->config), state = optimizer_state_bytes(x.optimizer);
        cr_expect_geq(foretold, state, "%s: %zu of %zu", optimizers[r].name, state, foretold);
        bench_free(&x);
    }
    size_t weights_bytes = 0;
    struct bench x = bench_of("adamw", "plain", "llama", 0);
    for (int i = 0; i < x.model->n_params; i++) weights_bytes += (size_t)count(&x.model->params[i]) * 4;
    cr_expect_eq(optimizer_state_bytes(x.optimizer), 2 * weights_bytes);
    struct bench small = bench_of("adafactor", "plain", "llama", 0);
    cr_expect_lt(optimizer_state_bytes(small.optimizer), weights_bytes / 5);
    cr_expect_null(optimizer_find("adam"));
    bench_free(&x), bench_free(&small);
}
