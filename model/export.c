// export.c: a clean GGUF from any open file, and the proof that it computes the same.
//
// Tensors go from file to file, never through a loaded model: what the backend packed for itself is
// of no use elsewhere. A tensor that keeps its dtype is copied bit for bit; one that changes goes
// row by row through f32. Rows are independent, so threads change nothing.
//
// What is dropped: train.* and adam.* (a checkpoint's), lehr.seal, split.*, and the path of a
// folder's tokenizer.json, which means nothing elsewhere.
#include "model/internal.h"

#include <math.h>
#include <string.h>

enum { STAGE = 1 << 20, CHECK_TOKENS = 24 };

static bool begins(struct span key, const char *with) {
    size_t n = strlen(with);
    return key.n >= n && !memcmp(key.p, with, n);
}

static bool kept_key(struct span key) {
    static const char *const dropped[] = {"train.", "split.", "lehr.tokenizer_json", "general.alignment",
                                          "general.file_type", "general.quantization_version"};
    for (size_t i = 0; i < COUNT_OF(dropped); i++)
        if (begins(key, dropped[i])) return false;
    return true;
}

static bool kept_beside_tokenizer(struct span key) {
    return kept_key(key) && !begins(key, "tokenizer.ggml.") && !begins(key, "lehr.tokenizer");
}

static bool kept_tensor(const struct file_tensor *t) {
    return strncmp(t->name, "adam.", 5) != 0 && strcmp(t->name, "lehr.seal") != 0;
}

// Norms, biases, rope divisors and the routers of experts are small and delicate.
static bool changes(const struct file_tensor *t, enum dtype matrices) {
    return matrices != DTYPE_COUNT && t->dtype != matrices && t->n_dims > 1 && !strstr(t->name, "ffn_gate_inp") &&
           strcmp(t->name, "position_embd.weight") != 0;
}

static enum dtype written_dtype(const struct file_tensor *t, enum dtype matrices) {
    if (!changes(t, matrices)) return t->dtype;
    return t->size[t->n_dims - 1] % dtype_row(matrices)->block_weights == 0 ? matrices : DTYPE_F16;
}

static bool declare(const struct model_file *f, enum dtype matrices, struct gguf_out *o, struct text *notes,
                    struct err *err) {
    int fallen = 0;
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (!kept_tensor(t)) continue;
        if (t->dtype == DTYPE_COUNT || (changes(t, matrices) && !dtype_row(t->dtype)->to_f32))
            return err_set(err, "tensor %s has type %s, which this program does not read", t->name, t->type_name);
        enum dtype d = written_dtype(t, matrices);
        gguf_out_tensor(o, t->name, d, t->n_dims, t->size);
        if (changes(t, matrices) && d != matrices && fallen++ == 0 && notes)
            text_fmt(notes, "%s has rows of %lld weights, no multiple of %d: written as F16 instead of %s\n", t->name,
                     (long long)t->size[t->n_dims - 1], dtype_row(matrices)->block_weights, dtype_row(matrices)->name);
    }
    if (fallen > 1 && notes) text_fmt(notes, "%d more tensors likewise\n", fallen - 1);
    return true;
}

struct conversion {
    const struct dtype_row *from, *to;
    const char *in;
    char *out;
    float *stage;
    int64_t cols;
};

static void convert_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct conversion *c = arg;
    (void)thread;
    size_t in = (size_t)(c->cols / c->from->block_weights) * (size_t)c->from->block_bytes;
    size_t out = (size_t)(c->cols / c->to->block_weights) * (size_t)c->to->block_bytes;
    for (int64_t r = lo; r < hi; r++) {
        c->from->to_f32(c->in + (size_t)r * in, c->stage + r * c->cols, c->cols);
        c->to->from_f32(c->stage + r * c->cols, c->out + (size_t)r * out, c->cols);
    }
}

static void write_tensor(const struct file_tensor *t, enum dtype d, struct gguf_out *o) {
    if (d == t->dtype) {
        gguf_out_data(o, t->data, t->bytes);
        return;
    }
    struct conversion c = {.from = dtype_row(t->dtype), .to = dtype_row(d), .cols = t->size[t->n_dims - 1]};
    int64_t rows = 1, step = c.cols < STAGE ? STAGE / c.cols : 1;
    for (int i = 0; i + 1 < t->n_dims; i++) rows *= t->size[i];
    if (step > rows) step = rows;
    size_t row_bytes, out_bytes;
    bool whole = dtype_row_bytes(t->dtype, c.cols, &row_bytes) && dtype_row_bytes(d, c.cols, &out_bytes);
    assert(whole);
    (void)whole;
    c.stage = mem_array((size_t)(step * c.cols), sizeof *c.stage, "weights to convert");
    c.out = mem_array((size_t)step, out_bytes, "weights to write");
    for (int64_t at = 0; at < rows; at += step) {
        int64_t n = rows - at < step ? rows - at : step;
        c.in = (const char *)t->data + (size_t)at * row_bytes;
        pool_for(n, 8, convert_rows, &c);
        gguf_out_data(o, c.out, (size_t)n * out_bytes);
    }
    mem_free(c.stage);
    mem_free(c.out);
}

// The dtype of most bytes in matrices after writing.
static enum dtype most_bytes(const struct model_file *f, enum dtype matrices) {
    size_t bytes[DTYPE_COUNT] = {0}, all;
    int most = 0;
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (t->dtype == DTYPE_COUNT || t->n_dims < 2 || !kept_tensor(t)) continue;
        enum dtype d = written_dtype(t, matrices);
        if (dtype_row_bytes(d, t->size[t->n_dims - 1], &all)) bytes[d] += all * (size_t)t->size[0];
    }
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most]) most = d;
    return (enum dtype)most;
}

bool model_export_gguf(const struct model_file *f, const char *path, const struct export_options *options,
                       struct text *notes, struct err *err) {
    enum dtype matrices = options->matrices, most = most_bytes(f, matrices);
    assert(matrices == DTYPE_COUNT || dtype_row(matrices)->from_f32);
    struct gguf_out *o = gguf_out_open(path, err);
    if (!o) return false;
    gguf_out_copy_keys(o, f, options->tokenizer ? kept_beside_tokenizer : kept_key);
    if (options->tokenizer) options->tokenizer(options->arg, o);
    if (dtype_row(most)->gguf_file_type >= 0)
        gguf_out_u32(o, "general.file_type", (uint32_t)dtype_row(most)->gguf_file_type);
    if (dtype_row(most)->block_weights > 1) gguf_out_u32(o, "general.quantization_version", 2);
    if (!declare(f, matrices, o, notes, err)) {
        gguf_out_abort(o);
        return false;
    }
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (kept_tensor(t)) write_tensor(t, written_dtype(t, matrices), o);
    }
    return gguf_out_commit(o, err);
}

// --- the proof -----------------------------------------------------------------------------------------------------

static double log_sum(const float *x, int64_t n) {
    double most = (double)x[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = fmax(most, (double)x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

static void compare(const float *x, const float *y, int64_t V, struct export_check *check) {
    double a = log_sum(x, V), b = log_sum(y, V), kl = 0;
    int64_t top_x = 0, top_y = 0;
    for (int64_t i = 0; i < V; i++) {
        double p = (double)x[i] - a, q = (double)y[i] - b, d = fabs((double)x[i] - (double)y[i]);
        kl += exp(p) * (p - q);
        if (!(d <= check->most)) check->most = d; // NaN stays
        if (x[i] > x[top_x]) top_x = i;
        if (y[i] > y[top_y]) top_y = i;
    }
    check->kl += kl;
    check->same_top += top_x == top_y;
}

// One token at a time, so that a vocabulary is all the memory that logits take.
static bool run_both(struct session *x, struct session *y, int64_t V, struct export_check *check, struct err *err) {
    for (int64_t t = 0; t < check->positions; t++) {
        int32_t id = (int32_t)rng_below(1, 0, (uint64_t)t, (uint64_t)V);
        const float *a = session_feed(x, &id, 1, LOGITS_LAST, err);
        const float *b = a ? session_feed(y, &id, 1, LOGITS_LAST, err) : NULL;
        if (!b) return false;
        check->identical = check->identical && !memcmp(a, b, (size_t)V * sizeof *a);
        compare(a, b, V, check);
    }
    check->kl /= (double)check->positions;
    return true;
}

bool model_export_check(const struct model_file *source, const char *written, const struct backend *b,
                        struct export_check *check, struct err *err) {
    struct model_file *f = model_file_open(written, err);
    if (!f) return false;
    struct model *x = model_load(source, b, err), *y = x ? model_load(f, b, err) : NULL;
    struct session *s = NULL, *t = NULL;
    bool good = y != NULL;
    if (good && x->config.V != y->config.V)
        good = err_set(err, "%s has %lld tokens, its source %lld", written, (long long)y->config.V,
                       (long long)x->config.V);
    if (good) {
        int64_t ctx = x->config.ctx < y->config.ctx ? x->config.ctx : y->config.ctx;
        *check = (struct export_check){.identical = true, .positions = ctx < CHECK_TOKENS ? ctx : CHECK_TOKENS};
        struct session_options options = {.ctx = check->positions};
        good = (s = session_new(x, &options, err)) && (t = session_new(y, &options, err)) &&
               run_both(s, t, x->config.V, check, err);
    }
    session_free(s);
    session_free(t);
    model_free(x);
    model_free(y);
    model_file_close(f);
    return good || err_in(err, "the check of %s", written);
}
