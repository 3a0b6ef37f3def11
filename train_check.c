// train_check.c: --coord-check: do activations keep their size as the model gets wider?
//
// The model of the run, at several widths, learns a few batches twice: as it is, under muP, and as a control without any
// scaling by width (every width its own base width: no tensor's start, rate or multiplier knows the others). A tensor
// passes when, from the second step on, neither its size nor what it has moved by grows or falls like a power of the
// width: theory knows multiples of one half (0 under muP, 1/2 and 1 without), so the limit is a quarter. Scores and logits
// may fall with the root of the width: what a model starts with there is noise that averages out (Yang et al. 2022,
// appendix D.2), and a stream that moves draws the noise of logits anew. What is learned in them may not, which is why the
// answers are a row of their own. The check passes when all tensors do and the control has at least one that does not.
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTHS_MOST = 8, STEPS = 4, SEEDS = 4, SEQ_MOST = 128, BATCH = 4, HEAD = 32 };
static const double limit = 0.25, root = 0.5; // powers of the width; in theory all are multiples of one half
static const double base_lr = 0.003; // so that a few steps move everything, and nothing blows up

struct grid { // [seeds' mean] sizes of each width after each step
    double width[WIDTHS_MOST];
    size_t n;
    struct coord_sizes at[WIDTHS_MOST][STEPS + 1];
};

static void read_widths(struct grid *g) {
    const char *p = opts.check_widths;
    for (char *end; *p; p = *end == ',' ? end + 1 : end) {
        long width = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || width < 2 * HEAD || width > 8192 || width % (2 * HEAD) || g->n == WIDTHS_MOST)
            refuse(2, "--check-widths %s: expected up to %d multiples of %d, like 64,128,256", opts.check_widths, WIDTHS_MOST, 2 * HEAD);
        g->width[g->n++] = (double)width;
    }
    if (g->n < 2) refuse(2, "--check-widths %s: a slope needs two widths", opts.check_widths);
}

// More heads of one size, and all other widths in proportion.
static struct model_config at_width(const struct model_config *c, double width, bool mup) {
    struct model_config w = *c;
    w.C = 2 * HEAD, w.D = HEAD, w.H = 2, w.G = 1, w.F = 3 * w.C; // divides without a rest
    w.m_attn = 1.0f / HEAD, w.base_width = mup ? c->base_width : (float)width;
    return config_at_width(&w, (int64_t)width);
}

static void measure(struct run *r, const struct model_config *c, bool mup, struct grid *g) {
    struct err err;
    for (size_t i = 0; i < g->n; i++)
        for (int seed = 0; seed < SEEDS; seed++) {
            struct coord_sizes sizes[STEPS + 1];
            struct coord_run run = {.config = at_width(c, g->width[i], mup), .backend = r->backend, .optimizer = optimizer_options_of_run(),
                                    .data = &r->train, .T = opts.seq < SEQ_MOST ? opts.seq : SEQ_MOST, .batch = BATCH, .steps = STEPS,
                                    .seed = (uint64_t)opts.seed + (uint64_t)seed, .lr = opts.lr > 0 ? opts.lr : base_lr * optimizer_find(opts.optimizer)->lr};
            if (stop_wanted) exit(130);
            if (!coords_run(&run, sizes, &err)) fail(1, &err);
            for (int s = 0; s <= STEPS; s++)
                for (int k = 0; k < COORD_COUNT; k++) {
                    g->at[i][s].size[k] += sizes[s].size[k] / SEEDS;
                    g->at[i][s].change[k] += sizes[s].change[k] / SEEDS;
                }
        }
}

// Mean over the steps from the second on: single ones are noisier.
static double slope(const struct grid *g, int tensor, bool change) {
    double sum = 0, y[WIDTHS_MOST];
    for (int step = 2; step <= STEPS; step++) {
        for (size_t i = 0; i < g->n; i++) y[i] = change ? g->at[i][step].change[tensor] : g->at[i][step].size[tensor];
        sum += log_slope(g->width, y, g->n);
    }
    return sum / (STEPS - 1);
}

static bool passes(int tensor, double size, double change) {
    double least = tensor == COORD_SCORES || tensor == COORD_LOGITS ? -root - limit : -limit, least_change = tensor == COORD_LOGITS ? -root - limit : -limit;
    return size >= least && size <= limit && change >= least_change && change <= limit; // false for what is no number
}

// Prints one table and returns how many tensors do not pass.
static int print_table(const char *title, const struct grid *g) {
    int failed = 0;
    printf("%s\n  %-14s", title, "width");
    for (size_t i = 0; i < g->n; i++) printf("%9.0f", g->width[i]);
    printf("   slope of size, of change\n");
    for (int k = 0; k < COORD_COUNT; k++) {
        double size = slope(g, k, false), change = slope(g, k, true);
        bool fine = passes(k, size, change);
        printf("  %-14s", coord_names[k]);
        for (size_t i = 0; i < g->n; i++) printf("%9.4f", g->at[i][STEPS].size[k]);
        printf("   %+7.3f %+7.3f  %s\n", size, change, fine ? "PASS" : "FAIL");
        failed += !fine;
    }
    return failed;
}

bool coord_check(struct run *r, const struct model_config *c) {
    struct grid mup = {0}, control = {0};
    read_widths(&mup);
    read_widths(&control);
    if (!c->mup) refuse(2, "--coord-check is about muP; %s has no multipliers, granite has", c->family->name);
    measure(r, c, true, &mup);
    measure(r, c, false, &control);
    printf("mean |x| after %d steps, and slopes of log |x|, and of what it moved by since the start, against the log of the width\n"
           "PASS: both slopes, means over the steps from the second on, within %.2f; logits, and the size of scores, may fall by up to %.2f\n", STEPS, limit, root + limit);
    int bad = print_table("muP", &mup), good = print_table("control: no scaling by width", &control);
    bool passed = bad == 0 && good > 0;
    printf("coordinate check: %s: muP fails in %d of %d tensors, the control in %d\n", passed ? "PASS" : "FAIL", bad, COORD_COUNT, good);
    return passed;
}
