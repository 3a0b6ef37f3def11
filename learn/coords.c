// coords: the coordinate check of muP (Yang et al. 2022, arXiv 2203.03466, appendix D.1; methods B.5).
//
// Models that differ in their width alone learn the same few batches. Under muP every activation, and what it has moved
// by since the start, keeps its size as widths grow; under the standard parametrization at least one of them grows, and
// a rate that is right at one width is wrong at another. What is measured is the mean of |x| and of |x - x at the start|
// over a few sequences, after each step.
//
//     embedding      what enters the first block          ffn gate    before its nonlinearity
//     scores         m_attn q.k of all visible pairs      ffn out     what the branch adds to the stream
//     attended       values, mixed                        block out   the stream behind a block
//     attention out  what the branch adds to the stream   logits      divided as the loss sees them
//     answer         how far the next token's logit lies above the others: a mean of signed numbers, so that what is noise
//                    in the logits averages out and what was learned stays
//
// Means are over all layers. Sums in double, in order: the same numbers for any number of threads.
#include "learn/learn.h"

#include <math.h>
#include <string.h>

const char *const coord_names[COORD_COUNT] = {"embedding", "scores", "attended", "attention out", "ffn gate", "ffn out", "block out", "logits", "answer"};

// ---- snapshots ----------------------------------------------------------------------------------------------------

static const enum train_act kept[] = {ACT_STREAM, ACT_MID, ACT_QUERIES, ACT_KEYS, ACT_ATTENDED, ACT_GATE};
enum { KEPT = COUNT_OF(kept) };

// Host copies of one sequence's activations: of each layer, and of the stream also behind the last.
struct snapshot {
    float *act[KEPT][COORD_LAYERS_MAX + 1];
    int64_t cols[KEPT];
    float *logits; // [T,V]
};

struct check {
    const struct coord_run *run;
    struct model *m;
    struct train_state *acts;
    struct optimizer *optimizer;
    float *room;                        // device: normed rows and logits
    struct snapshot start[COORD_PROBES], now;
    int32_t *ids, *targets, *doc_start; // of a batch
};

static bool has_layer(const struct check *c, int k, int64_t l) { return l < c->m->config.L + (kept[k] == ACT_STREAM); }

static void snapshot_make(const struct check *c, struct snapshot *s) {
    int64_t T = c->run->T;
    for (int k = 0; k < KEPT; k++) {
        s->cols[k] = train_activation(c->acts, kept[k], 0).cols;
        for (int64_t l = 0; has_layer(c, k, l); l++) s->act[k][l] = mem_array((size_t)(T * s->cols[k]), sizeof(float), "activations");
    }
    s->logits = mem_array((size_t)(T * c->m->config.V), sizeof(float), "logits");
}

static void snapshot_free(struct snapshot *s) {
    for (int k = 0; k < KEPT; k++)
        for (int64_t l = 0; l <= COORD_LAYERS_MAX; l++) mem_free(s->act[k][l]);
    mem_free(s->logits);
}

// Sequence i of the data, at row `at` of the batch.
static void load(const struct check *c, int64_t i, int64_t at) {
    int64_t T = c->run->T;
    loader_sequence(c->run->data, T, c->run->seed, i, (int32_t)(at * T), c->ids + at * T, c->targets + at * T, c->doc_start + at * T);
}

static void snapshot_take(const struct check *c, int64_t sequence, struct snapshot *s) {
    const struct model *m = c->m;
    const struct backend *b = m->backend;
    const int64_t T = c->run->T, C = m->config.C, V = m->config.V;
    load(c, sequence, 0);
    train_loss(c->acts, &(struct train_batch){T, T, c->ids, c->targets, c->doc_start}, 0, NULL);
    for (int k = 0; k < KEPT; k++)
        for (int64_t l = 0; has_layer(c, k, l); l++)
            b->download(s->act[k][l], train_activation(c->acts, kept[k], l).data, (size_t)(T * s->cols[k]) * sizeof(float));
    struct tensor normed = tensor_f32(c->room, T, C), logits = tensor_f32(c->room + T * C, T, V);
    struct tensor out = tensor_rows(train_activation(c->acts, ACT_STREAM, m->config.L), 0, T);
    b->rmsnorm(&(struct rmsnorm_args){normed, out, m->params[m->out_norm].w, m->config.norm_eps});
    b->matmul(&(struct matmul_args){logits, normed, m->params[m->head].w, 1 / m->config.logit_divisor, false, PRECISION_F32});
    b->download(s->logits, logits.data, (size_t)(T * V) * sizeof(float));
}

// ---- means --------------------------------------------------------------------------------------------------------

struct sum {
    double size, change, count;
};

static void add(struct sum *s, double now, double start) {
    s->size += fabs(now), s->change += fabs(now - start), s->count++;
}

static void add_all(struct sum *s, const float *now, const float *start, int64_t n) {
    for (int64_t i = 0; i < n; i++) add(s, (double)now[i], (double)start[i]);
}

// Of b - a: what a branch added to the stream.
static void add_branch(struct sum *s, const float *now_a, const float *now_b, const float *start_a, const float *start_b, int64_t n) {
    for (int64_t i = 0; i < n; i++) add(s, (double)now_b[i] - (double)now_a[i], (double)start_b[i] - (double)start_a[i]);
}

static double score(const struct check *c, const struct snapshot *s, int64_t l, int64_t head, int64_t row, int64_t key) {
    const struct model_config *f = &c->m->config;
    const float *q = s->act[2][l] + row * s->cols[2] + head * f->D, *k = s->act[3][l] + key * s->cols[3] + head / (f->H / f->G) * f->D;
    float sum = 0;
    for (int64_t d = 0; d < f->D; d++) sum += q[d] * k[d];
    return (double)(sum * f->m_attn);
}

static void add_scores(const struct check *c, struct sum *sum, const struct snapshot *now, const struct snapshot *start, int64_t l) {
    for (int64_t h = 0; h < c->m->config.H; h++)
        for (int64_t row = 0; row < c->run->T; row++)
            for (int64_t key = c->doc_start[row]; key <= row; key++)
                add(sum, score(c, now, l, h, row, key), score(c, start, l, h, row, key));
}

static void add_answers(const struct check *c, struct sum *sum, const float *now, const float *start) {
    const int64_t V = c->m->config.V;
    for (int64_t row = 0; row < c->run->T; row++) {
        double mean_now = 0, mean_start = 0;
        if (c->targets[row] < 0) continue;
        for (int64_t v = 0; v < V; v++) mean_now += (double)now[row * V + v] / (double)V, mean_start += (double)start[row * V + v] / (double)V;
        double a = (double)now[row * V + c->targets[row]] - mean_now, b = (double)start[row * V + c->targets[row]] - mean_start;
        sum->size += a, sum->change += a - b, sum->count++;
    }
}

static void compare(const struct check *c, const struct snapshot *now, const struct snapshot *start, struct sum sums[COORD_COUNT]) {
    enum { STREAM, MID, QUERIES, KEYS, ATTENDED, GATE };
    const int64_t T = c->run->T, n = T * c->m->config.C;
    add_all(&sums[COORD_EMBEDDING], now->act[STREAM][0], start->act[STREAM][0], n);
    for (int64_t l = 0; l < c->m->config.L; l++) {
        add_scores(c, &sums[COORD_SCORES], now, start, l);
        add_all(&sums[COORD_ATTENDED], now->act[ATTENDED][l], start->act[ATTENDED][l], T * now->cols[ATTENDED]);
        add_branch(&sums[COORD_ATTENTION_OUT], now->act[STREAM][l], now->act[MID][l], start->act[STREAM][l], start->act[MID][l], n);
        add_all(&sums[COORD_GATE], now->act[GATE][l], start->act[GATE][l], T * now->cols[GATE]);
        add_branch(&sums[COORD_FFN_OUT], now->act[MID][l], now->act[STREAM][l + 1], start->act[MID][l], start->act[STREAM][l + 1], n);
        add_all(&sums[COORD_BLOCK_OUT], now->act[STREAM][l + 1], start->act[STREAM][l + 1], n);
    }
    add_all(&sums[COORD_LOGITS], now->logits, start->logits, T * c->m->config.V);
    add_answers(c, &sums[COORD_ANSWER], now->logits, start->logits);
}

// ---- a run --------------------------------------------------------------------------------------------------------

static void learn(struct check *c, int64_t step) {
    const struct coord_run *r = c->run;
    for (int64_t s = 0; s < r->batch; s++) load(c, step * r->batch + s, s);
    train_zero_grads(c->acts);
    for (int64_t s = 0; s < r->batch; s++) { // one by one: the room of one sequence is enough
        for (int64_t i = s * r->T; i < (s + 1) * r->T; i++) c->doc_start[i] -= (int32_t)(s * r->T);
        train_loss(c->acts, &(struct train_batch){r->T, r->T, c->ids + s * r->T, c->targets + s * r->T, c->doc_start + s * r->T},
                   1 / (float)(r->batch * r->T), NULL);
    }
    train_close_grads(c->acts);
    double norm = optimizer_grad_norm(c->optimizer);
    if (isfinite(norm)) optimizer_step(c->optimizer, r->lr, norm, step + 1);
}

static bool start(struct check *c, struct err *err) {
    const struct coord_run *r = c->run;
    if (r->config.L > COORD_LAYERS_MAX) return err_set(err, "a coordinate check goes to %d layers, not %lld", COORD_LAYERS_MAX, (long long)r->config.L);
    size_t rows = (size_t)(r->batch * r->T);
    c->m = model_new(&r->config, r->backend, DTYPE_F32, r->seed, err);
    if (!c->m || !(c->optimizer = optimizer_new(c->m, &r->optimizer, err)) || !(c->acts = train_state_new(c->m, r->T, r->T, SIZE_MAX, err))) return false;
    c->room = r->backend->alloc((size_t)(r->T * (r->config.C + r->config.V)) * sizeof(float), "logits", err);
    if (!c->room) return false;
    c->ids = mem_array(rows, sizeof *c->ids, "batch");
    c->targets = mem_array(rows, sizeof *c->targets, "batch");
    c->doc_start = mem_array(rows, sizeof *c->doc_start, "batch");
    for (int p = 0; p < COORD_PROBES; p++) snapshot_make(c, &c->start[p]);
    snapshot_make(c, &c->now);
    return true;
}

static void end(struct check *c) {
    for (int p = 0; p < COORD_PROBES; p++) snapshot_free(&c->start[p]);
    snapshot_free(&c->now);
    mem_free(c->ids);
    mem_free(c->targets);
    mem_free(c->doc_start);
    if (c->room) c->run->backend->free(c->room);
    train_state_free(c->acts);
    optimizer_free(c->optimizer);
    model_free(c->m);
}

bool coords_run(const struct coord_run *r, struct coord_sizes *sizes, struct err *err) {
    assert(r->T > 0 && r->batch > 0 && r->steps > 0);
    struct check c = {.run = r};
    bool fine = start(&c, err);
    for (int64_t step = 0; fine && step <= r->steps; step++) {
        struct sum sums[COORD_COUNT] = {0};
        if (step > 0) learn(&c, step - 1);
        for (int p = 0; p < COORD_PROBES; p++) {
            snapshot_take(&c, p, step ? &c.now : &c.start[p]);
            compare(&c, step ? &c.now : &c.start[p], &c.start[p], sums);
        }
        for (int i = 0; i < COORD_COUNT; i++) {
            sizes[step].size[i] = fabs(sums[i].size) / sums[i].count;
            sizes[step].change[i] = fabs(sums[i].change) / sums[i].count;
        }
    }
    end(&c);
    return fine;
}

double log_slope(const double *x, const double *y, size_t n) {
    double mx = 0, my = 0, xx = 0, xy = 0;
    for (size_t i = 0; i < n; i++) mx += log(x[i]) / (double)n, my += log(y[i]) / (double)n;
    for (size_t i = 0; i < n; i++) {
        double dx = log(x[i]) - mx;
        xx += dx * dx, xy += dx * (log(y[i]) - my);
    }
    return xy / xx;
}
