// perplexity.c: how well a model predicts a text, and how far it is from another model.
//
// Two protocols, because numbers of one cannot be compared with the other's: llama.cpp's (chunks of ctx, the first token
// replaced by BOS when the model has one, only the second half scored) and the sliding window of transformers (every token
// scored once, with at least ctx - stride tokens before it).
//
// The distance from a reference is KL(reference || model) = sum p (log p - log q) at every scored place, with its mean and
// quantiles (llama.cpp's --kl-divergence, but both models are at hand, so nothing is rounded to 16 bits and kept in a
// file). Rows are worked off by all threads, each into its own place, and summed in their order.
#include "gen/gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// One scored place.
struct place {
    double loss, reference_loss, kl, guess;
    bool same_top, identical;
};

struct rows {
    const float *logits, *reference; // [n,V]; reference NULL: none
    const int32_t *targets;
    int64_t V;
    struct place place[PERPLEXITY_ROWS];
};

static int64_t top_of(const float *x, int64_t V) {
    int64_t top = 0;
    for (int64_t i = 1; i < V; i++) top = x[i] > x[top] ? i : top;
    return top;
}

static void score_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    struct rows *r = arg;
    int64_t V = r->V;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *y = r->logits + i * V;
        struct place *p = &r->place[i];
        double b = logits_log_sum_exp(y, V);
        *p = (struct place){.loss = b - (double)y[r->targets[i]]};
        if (!r->reference) continue;
        const float *x = r->reference + i * V;
        double a = logits_log_sum_exp(x, V), entropy = 0;
        for (int64_t k = 0; k < V; k++) {
            double log_p = (double)x[k] - a, e = exp(log_p);
            if (!(e > 0)) continue; // 0 log 0 = 0
            p->kl += e * (log_p - ((double)y[k] - b));
            entropy -= e * log_p;
        }
        p->reference_loss = a - (double)x[r->targets[i]];
        p->guess = log((double)V) - entropy;
        p->same_top = top_of(x, V) == top_of(y, V);
        p->identical = !memcmp(x, y, (size_t)V * sizeof *x);
    }
}

struct run {
    const struct scoring *s;
    struct session *reference; // NULL: none
    struct divergence sum;
    double *kl; // of every place, when there is a reference
    size_t kl_cap;
    struct rows rows;
};

static void add_loss(struct perplexity *p, double loss, int64_t bytes) {
    p->nll += loss;
    p->nll_sq += loss * loss;
    p->tokens++;
    p->bytes += bytes;
}

static void add_places(struct run *r, const int32_t *targets, int64_t first, int64_t n) {
    struct divergence *d = &r->sum;
    for (int64_t i = first; i < n; i++) {
        const struct place *p = &r->rows.place[i];
        int64_t bytes = r->s->tokenizer ? (int64_t)tokenizer_piece(r->s->tokenizer, targets[i]).n : 0;
        add_loss(&d->model, p->loss, bytes);
        if (!r->reference) continue;
        mem_grow((void **)&r->kl, &r->kl_cap, (size_t)d->model.tokens, sizeof *r->kl, "divergence of every token");
        r->kl[d->reference.tokens] = p->kl;
        add_loss(&d->reference, p->reference_loss, bytes);
        d->kl += p->kl;
        d->kl_sq += p->kl * p->kl;
        d->both += p->loss * p->reference_loss;
        d->guess += p->guess;
        d->same_top += p->same_top;
        d->identical = d->identical && p->identical;
    }
}

// Adds the losses of ids[from..) inside the window ids[0..n); token j is predicted by row j - 1.
static bool score_window(struct run *r, const int32_t *ids, int64_t n, int64_t from, struct err *err) {
    session_rewind(r->s->session, 0);
    if (r->reference) session_rewind(r->reference, 0);
    for (int64_t at = 0; at < n - 1; at += PERPLEXITY_ROWS) {
        int64_t rows = n - 1 - at < PERPLEXITY_ROWS ? n - 1 - at : PERPLEXITY_ROWS;
        bool scored = at + rows >= from;
        enum logits_wanted want = scored ? LOGITS_ALL : LOGITS_NONE;
        r->rows.logits = session_feed(r->s->session, ids + at, rows, FEED_PROMPT, want, err);
        if (!r->rows.logits) return false;
        r->rows.reference = r->reference ? session_feed(r->reference, ids + at, rows, FEED_PROMPT, want, err) : NULL;
        if (r->reference && !r->rows.reference) return false;
        if (!scored) continue;
        r->rows.targets = ids + at + 1;
        pool_for(rows, 4, score_rows, &r->rows);
        add_places(r, ids + at + 1, at + 1 < from ? from - at - 1 : 0, rows);
    }
    return true;
}

static bool score_windows(struct run *r, struct err *err) {
    const struct scoring *s = r->s;
    assert(s->ctx >= 2 && s->ctx <= session_capacity(s->session));
    int64_t count = (int64_t)s->n;
    if (s->stride <= 0 && count < s->ctx)
        return err_set(err, "the text has %lld tokens, but one chunk needs %lld: give more text or a smaller -c", (long long)count,
                       (long long)s->ctx);
    if (count < 2) return err_set(err, "the text has %lld tokens, at least 2 are needed", (long long)count);
    int32_t *window = mem_array((size_t)s->ctx, sizeof *window, "window");
    bool fine = true;
    int64_t done = 0; // tokens before this index are scored (sliding)
    for (int64_t chunk = 0; fine && (s->max_chunks <= 0 || chunk < s->max_chunks); chunk++) {
        int64_t begin = chunk * (s->stride > 0 ? s->stride : s->ctx);
        int64_t length = count - begin < s->ctx ? count - begin : s->ctx;
        if (s->stride > 0 ? done >= count : length < s->ctx) break;
        memcpy(window, s->ids + begin, (size_t)length * sizeof *window);
        int64_t from = s->stride > 0 ? done - begin : s->ctx / 2 + 1;
        const struct tokenizer *t = s->tokenizer;
        if (s->stride <= 0 && t && tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0) window[0] = tokenizer_bos(t);
        fine = score_window(r, window, length, from < 1 ? 1 : from, err);
        done = begin + length;
        if (fine && s->each) s->each(s->arg, &r->sum.model);
    }
    mem_free(window);
    return fine;
}

bool perplexity_run(const struct scoring *s, struct perplexity *out, struct err *err) {
    struct run *r = mem_alloc(sizeof *r, "scoring of a text");
    r->s = s;
    r->rows.V = session_vocab(s->session);
    bool fine = score_windows(r, err);
    *out = r->sum.model;
    mem_free(r);
    return fine;
}

// ---- the distance from a reference

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Between the two values beside it in proportion.
static double quantile(const double *sorted, int64_t n, double part) {
    double at = part * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

bool divergence_run(const struct scoring *s, struct session *reference, struct divergence *out, struct err *err) {
    assert(session_vocab(s->session) == session_vocab(reference) && s->ctx <= session_capacity(reference));
    struct run *r = mem_alloc(sizeof *r, "scoring of a text");
    r->s = s;
    r->reference = reference;
    r->rows.V = session_vocab(reference);
    r->sum.identical = true;
    bool fine = score_windows(r, err);
    *out = r->sum;
    int64_t n = out->reference.tokens;
    if (fine && n) {
        qsort(r->kl, (size_t)n, sizeof *r->kl, by_size);
        out->median = quantile(r->kl, n, .5);
        out->p99 = quantile(r->kl, n, .99);
        out->p999 = quantile(r->kl, n, .999);
        out->most = r->kl[n - 1];
    }
    mem_free(r->kl);
    mem_free(r);
    return fine;
}

// Standard error of the mean of n numbers with these sums.
static double error_of_mean(double sum, double sum_sq, double n) {
    double mean = sum / n, variance = sum_sq / n - mean * mean;
    return sqrt(fmax(variance, 0) / fmax(n - 1, 1));
}

double divergence_kl_error(const struct divergence *d) { return error_of_mean(d->kl, d->kl_sq, (double)d->reference.tokens); }

double perplexity_of(const struct perplexity *p, double *error) {
    double value = exp(p->nll / (double)p->tokens);
    if (error) *error = value * error_of_mean(p->nll, p->nll_sq, (double)p->tokens);
    return value;
}

double divergence_ratio(const struct divergence *d, double *error) {
    double n = (double)d->model.tokens, sum = d->model.nll - d->reference.nll;
    double value = exp(sum / n);
    if (error) *error = value * error_of_mean(sum, d->model.nll_sq + d->reference.nll_sq - 2 * d->both, n);
    return value;
}

// ---- a text of the model's own

static bool is_end(const struct ids *ends, int32_t id) {
    for (size_t i = 0; i < ends->count; i++)
        if (ends->id[i] == id) return true;
    return false;
}

bool sample_text(struct session *s, const struct ids *ends, int32_t begin, int64_t window, uint64_t seed, int64_t n,
                 int32_t *out, struct err *err) {
    struct sampler_options plain = {.temp = 1, .top_p = 1, .typical = 1, .repeat_penalty = 1, .seed = (int64_t)seed};
    struct sampler *sampler = sampler_new(&plain, session_vocab(s));
    bool fine = true;
    for (int64_t i = 0; fine && i < n; i++) {
        bool anew = i % window == 0 || is_end(ends, out[i - 1]);
        if (i % window == 0) session_rewind(s, 0);
        const float *logits = anew ? NULL : session_feed(s, &out[i - 1], 1, FEED_GENERATED, LOGITS_LAST, err);
        fine = anew || logits;
        if (anew && i % window != 0) fine = session_feed(s, &out[i - 1], 1, FEED_GENERATED, LOGITS_NONE, err) != NULL;
        if (fine) out[i] = anew ? begin : sampler_pick(sampler, logits, i, err);
        fine = fine && out[i] >= 0;
    }
    sampler_free(sampler);
    session_rewind(s, 0);
    return fine;
}
