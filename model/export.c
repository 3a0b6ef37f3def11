// export.c: a clean GGUF from any open file, and the proof that it computes the same.
//
// Tensors go from file to file, never through a loaded model: what the backend packed for itself is
// of no use elsewhere. A tensor that keeps its dtype is copied bit for bit; one that changes goes
// row by row through f32. Rows are independent, so threads change nothing.
//
// What is dropped: train.* and optimizer.* (a checkpoint's), lehr.seal, split.*, and the path of a
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

// A file quantized anew says what it was quantized with, not what its source was.
static bool kept_quantizing(struct span key) { return kept_key(key) && !begins(key, "quantize."); }
static bool kept_quantizing_beside_tokenizer(struct span key) {
    return kept_beside_tokenizer(key) && !begins(key, "quantize.");
}

static bool kept_tensor(const struct file_tensor *t) {
    return strncmp(t->name, "optimizer.", 10) != 0 && strcmp(t->name, "lehr.seal") != 0;
}

// What becomes of the tensors of a file.
struct export {
    const struct file_tensor **tensor; // [n], those that are kept
    enum dtype *to;                    // [n]
    const float **importance;          // [n] per column, or per matrix and column; NULL: none
    bool *joint;                       // [n]: one importance for all matrices
    size_t n;
};

static void export_open(struct export *e, const struct model_file *f) {
    size_t all = model_file_tensor_count(f);
    *e = (struct export){.tensor = mem_array(all, sizeof *e->tensor, "tensors to write"),
                         .to = mem_array(all, sizeof *e->to, "dtypes to write"),
                         .importance = mem_array(all, sizeof *e->importance, "importance of tensors"),
                         .joint = mem_array(all, sizeof *e->joint, "importance of tensors")};
    for (size_t i = 0; i < all; i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (kept_tensor(t)) e->tensor[e->n++] = t;
    }
    for (size_t i = 0; i < e->n; i++) e->to[i] = e->tensor[i]->dtype;
}

static void export_close(struct export *e) {
    mem_free(e->tensor);
    mem_free(e->to);
    mem_free(e->importance);
    mem_free(e->joint);
}

static int64_t matrices_of(const struct file_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i + 2 < t->n_dims; i++) n *= t->size[i];
    return n;
}

// Every quantized matrix of a layer should have an entry, of its size; that many have one goes to *found.
static bool give_importance(struct export *e, const struct imatrix *m, size_t *found, struct text *notes, struct err *err) {
    size_t lacking = 0;
    const char *first = NULL;
    for (size_t i = 0; i < e->n; i++) {
        const struct file_tensor *t = e->tensor[i];
        if (e->to[i] == t->dtype || dtype_row(e->to[i])->block_weights == 1) continue;
        const struct imatrix_entry *entry = imatrix_find(m, t->name);
        size_t cols = (size_t)t->size[t->n_dims - 1], mats = (size_t)matrices_of(t);
        bool fits = entry && (entry->values == cols || (entry->values == cols * mats && (entry->counts == 1 || entry->counts == mats)));
        if (entry && !fits)
            return err_set(err, "the importance matrix has %zu values for %s, which has %zu columns in %zu matrices: it was"
                                " made for another model", entry->values, t->name, cols, mats);
        if (entry) {
            e->importance[i] = entry->mean;
            e->joint[i] = entry->values == cols;
            (*found)++;
        } else if (!strncmp(t->name, "blk.", 4) && lacking++ == 0) first = t->name;
    }
    if (!*found && lacking)
        return err_set(err, "the importance matrix knows none of the %zu matrices to quantize, %s for one: it was made for"
                            " another model", lacking, first);
    if (lacking && notes)
        text_fmt(notes, "the importance matrix lacks %zu matrices, %s for one: they are quantized without\n", lacking, first);
    return true;
}

static void note_strangers(const struct export *e, const struct imatrix *m, struct text *notes) {
    size_t strangers = 0, first = 0;
    for (size_t k = 0; k < m->n; k++) {
        bool known = false;
        for (size_t i = 0; !known && i < e->n; i++) known = !strcmp(e->tensor[i]->name, m->entries[k].name);
        if (!known && strangers++ == 0) first = k;
    }
    if (strangers && notes)
        text_fmt(notes, "the importance matrix has %zu entries for tensors that this model lacks, %s for one\n", strangers,
                 m->entries[first].name);
}

// dtype and importance of every tensor.
static bool choose(struct export *e, const struct model_file *f, const struct export_options *o, struct text *notes,
                   struct err *err) {
    struct model_config c;
    size_t found = 0, fallen = 0, first = 0, again = 0;
    if (!o->mix) return true;
    if (!config_read(&c, f, err)) return false;
    mix_choose(o->mix, &c, o->importance != NULL, e->tensor, e->n, e->to);
    for (size_t i = 0; i < e->n; i++) {
        const struct file_tensor *t = e->tensor[i];
        if (e->to[i] == t->dtype) continue;
        if (t->dtype == DTYPE_COUNT || !dtype_row(t->dtype)->to_f32) continue; // refused by declare
        again += dtype_row(t->dtype)->block_weights > 1 && e->to[i] != DTYPE_F32;
        if (t->size[t->n_dims - 1] % dtype_row(o->mix->base)->block_weights != 0 && fallen++ == 0) first = i;
    }
    if (fallen && notes)
        text_fmt(notes, "%zu tensors have rows that are no multiple of %d, %s (%lld) for one: they get formats of smaller blocks,"
                        " that one %s\n", fallen, dtype_row(o->mix->base)->block_weights, e->tensor[first]->name,
                 (long long)e->tensor[first]->size[e->tensor[first]->n_dims - 1], dtype_row(e->to[first])->name);
    if (again && notes)
        text_fmt(notes, "%zu matrices of the source are quantized already and lose twice: quantize from F32, F16 or BF16 where"
                        " there is such a file\n", again);
    if (!o->importance) return true;
    note_strangers(e, o->importance, notes);
    return give_importance(e, o->importance, &found, notes, err);
}

static bool declare(const struct export *e, struct gguf_out *o, struct err *err) {
    for (size_t i = 0; i < e->n; i++) {
        const struct file_tensor *t = e->tensor[i];
        if (t->dtype == DTYPE_COUNT || (e->to[i] != t->dtype && !dtype_row(t->dtype)->to_f32))
            return err_set(err, "tensor %s has type %s, which this program does not read", t->name, t->type_name);
        gguf_out_tensor(o, t->name, e->to[i], t->n_dims, t->size);
    }
    return true;
}

struct conversion {
    const struct dtype_row *from, *to;
    enum dtype dtype; // to
    const char *in;
    char *out;
    float *stage;
    const float *importance; // NULL: none
    int64_t cols, first, rows_each; // row `first` of the tensor comes first; rows of a matrix
    bool joint;
};

static void convert_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct conversion *c = arg;
    (void)thread;
    size_t in = (size_t)(c->cols / c->from->block_weights) * (size_t)c->from->block_bytes;
    size_t out = (size_t)(c->cols / c->to->block_weights) * (size_t)c->to->block_bytes;
    for (int64_t r = lo; r < hi; r++) {
        c->from->to_f32(c->in + (size_t)r * in, c->stage + r * c->cols, c->cols);
        const float *weigh = c->importance;
        if (weigh && !c->joint) weigh += (c->first + r) / c->rows_each * c->cols;
        dtype_quantize(c->dtype, c->stage + r * c->cols, c->out + (size_t)r * out, c->cols, weigh);
    }
}

struct progress_of {
    const struct export_options *options;
    size_t done, of;
};
static void told(struct progress_of *p, size_t bytes) {
    p->done += bytes;
    if (p->options->each) p->options->each(p->options->each_arg, p->done, p->of);
}

static void write_tensor(const struct export *e, size_t i, struct gguf_out *o, struct progress_of *p) {
    const struct file_tensor *t = e->tensor[i];
    enum dtype d = e->to[i];
    if (d == t->dtype) {
        gguf_out_data(o, t->data, t->bytes);
        told(p, t->bytes);
        return;
    }
    struct conversion c = {.from = dtype_row(t->dtype), .to = dtype_row(d), .dtype = d, .importance = e->importance[i],
                           .cols = t->size[t->n_dims - 1], .rows_each = t->size[t->n_dims - 2], .joint = e->joint[i]};
    int64_t rows = 1, step = c.cols < STAGE ? STAGE / c.cols : 1;
    for (int k = 0; k + 1 < t->n_dims; k++) rows *= t->size[k];
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
        c.first = at;
        pool_for(n, 8, convert_rows, &c);
        gguf_out_data(o, c.out, (size_t)n * out_bytes);
        told(p, (size_t)n * row_bytes);
    }
    mem_free(c.stage);
    mem_free(c.out);
}

// The dtype of most bytes in matrices.
static enum dtype most_bytes(const struct export *e) {
    size_t bytes[DTYPE_COUNT] = {0};
    int most = 0;
    for (size_t i = 0; i < e->n; i++)
        if (e->to[i] < DTYPE_COUNT && e->tensor[i]->n_dims > 1) bytes[e->to[i]] += e->tensor[i]->bytes;
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most]) most = d;
    return (enum dtype)most;
}

static void write_keys(const struct export *e, const struct model_file *f, const struct export_options *options,
                       struct gguf_out *o) {
    bool (*const kept[2][2])(struct span) = {{kept_key, kept_beside_tokenizer},
                                             {kept_quantizing, kept_quantizing_beside_tokenizer}};
    gguf_out_copy_keys(o, f, kept[options->mix != NULL][options->tokenizer != NULL]);
    if (options->tokenizer) options->tokenizer(options->arg, o);
    // A file that is copied keeps what it says of itself: mixes cannot be told from one dtype.
    int64_t file_type = dtype_row(most_bytes(e))->gguf_file_type, was = -1;
    struct err ignored;
    if (options->mix) file_type = options->mix->file_type;
    else if (meta_int(f, "general.file_type", false, 0, 1 << 16, &was, &ignored) && was >= 0) file_type = was;
    if (file_type >= 0) gguf_out_u32(o, "general.file_type", (uint32_t)file_type);
    bool blocks = false;
    for (size_t i = 0; i < e->n; i++) blocks = blocks || (e->to[i] < DTYPE_COUNT && dtype_row(e->to[i])->block_weights > 1);
    if (blocks) gguf_out_u32(o, "general.quantization_version", 2);
    if (!options->mix || !options->importance) return;
    const char *path = options->importance_path ? options->importance_path : "", *text = options->importance->dataset;
    gguf_out_text(o, "quantize.imatrix.file", path, strlen(path));
    if (text) gguf_out_text(o, "quantize.imatrix.dataset", text, strlen(text));
    gguf_out_u32(o, "quantize.imatrix.entries_count", (uint32_t)options->importance->n);
    gguf_out_u32(o, "quantize.imatrix.chunks_count", (uint32_t)options->importance->chunks);
}

bool model_export_gguf(const struct model_file *f, const char *path, const struct export_options *options,
                       struct text *notes, struct err *err) {
    struct export e;
    struct progress_of progress = {.options = options};
    assert(options->mix || !options->importance);
    export_open(&e, f);
    struct gguf_out *o = choose(&e, f, options, notes, err) ? gguf_out_open(path, err) : NULL;
    if (o) write_keys(&e, f, options, o);
    bool good = o && declare(&e, o, err);
    for (size_t i = 0; i < e.n; i++) progress.of += e.tensor[i]->bytes;
    for (size_t i = 0; good && i < e.n; i++) write_tensor(&e, i, o, &progress);
    if (!good) gguf_out_abort(o);
    export_close(&e);
    return good && gguf_out_commit(o, err);
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
        const float *a = session_feed(x, &id, 1, FEED_GENERATED, LOGITS_LAST, err);
        const float *b = a ? session_feed(y, &id, 1, FEED_GENERATED, LOGITS_LAST, err) : NULL;
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
