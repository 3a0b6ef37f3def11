// hf_write.c: a Hugging Face folder from any open file.
//
// The mirror of hf_folder.c: names by the same table (hf_tables.c), rows of Q and K from adjacent pairs
// back to halves (row h, j D/2 + i there is row h, 2i+j here), experts back to a tensor each or gate and
// up back into one, matrices of GPT-2 and experts of gpt-oss transposed. What has no name there is refused, not left out;
// hf_write_config.c does the same for the keys.
//
// Tensors of four bytes come first, so that every one lies at a multiple of its width. config.json
// is removed first and written last: a folder is a model when it has one.
#include "formats/internal.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { STAGE = 1 << 20 }; // floats converted at a time

struct out_tensor {
    const struct file_tensor *from, *up; // up: its rows alternate with those of from, expert by expert (HF_HALVES), or one by one
    char name[128];
    enum hf_change change;
    enum dtype dtype;
    int n_dims;
    int64_t size[4];
    int64_t first; // row of `from` that row 0 is
    size_t bytes;
};
struct writer {
    const struct model_file *f;
    const char *folder;
    enum dtype matrices;
    struct err *err;
    struct hf_shape shape;
    struct out_tensor *tensors;
    size_t n, cap;
};

bool hf_write_text(const char *folder, const char *name, const struct text *t, struct err *err) {
    struct text path = {0};
    text_fmt(&path, "%s/%s", folder, name);
    struct file_out *out = file_out_open(path.data, err);
    text_free(&path);
    if (!out) return false;
    file_out_write(out, t->data, t->len);
    return file_out_commit(out, err);
}

// ---------------------------------------------------------------------------------------------------------------
// Which tensors there will be.

static int64_t heads_of(const struct writer *w, enum hf_change change) {
    return change == HF_ROWS_Q ? w->shape.H : change == HF_ROWS_K ? w->shape.G : 0;
}

static bool add(struct writer *w, struct out_tensor o) {
    size_t weights = 1;
    for (int d = 0; d < o.n_dims; d++)
        if (!size_mul(weights, (size_t)o.size[d], &weights)) return err_set(w->err, "tensor %s is too large", o.name);
    if (!size_mul(weights, (size_t)dtype_row(o.dtype)->block_bytes, &o.bytes))
        return err_set(w->err, "tensor %s is too large", o.name);
    mem_grow((void **)&w->tensors, &w->cap, w->n + 1, sizeof o, "tensors to write");
    w->tensors[w->n++] = o;
    return true;
}

// One tensor for each of the experts that t stacks; the '*' of the name becomes the number.
static bool add_experts(struct writer *w, const struct out_tensor *all) {
    const char *star = strchr(all->name, '*');
    for (int64_t e = 0; e < all->from->size[0]; e++) {
        struct out_tensor o = *all;
        snprintf(o.name, sizeof o.name, "%.*s%" PRId64 "%s", (int)(star - all->name), all->name, e, star + 1);
        o.n_dims = 2;
        o.size[0] = all->size[1], o.size[1] = all->size[2];
        o.first = e * o.size[0];
        if (!add(w, o)) return false;
    }
    return true;
}

// gate [E, F, C] and up, named beside it, become [E, 2 F, C]; those of a shared expert have no E. Interleaved ones become
// [E, C, 2 F], biases [E, F] then [E, 2 F].
static bool add_halves(struct writer *w, struct out_tensor *o) {
    char name[65];
    hf_up_beside(o->from->name, name);
    o->up = model_file_tensor(w->f, name);
    if (!o->up || o->up->dtype != o->from->dtype || o->up->n_dims != o->n_dims || memcmp(o->up->size, o->from->size, sizeof o->size))
        return err_set(w->err, "tensor %s is missing or unlike %s", name, o->from->name);
    bool stacked = o->n_dims == 3, turned = o->change == HF_INTERLEAVED;
    if (turned && stacked) o->size[1] = o->from->size[2], o->size[2] = o->from->size[1];
    o->size[o->n_dims - (turned ? 1 : 2)] *= 2;
    return add(w, *o);
}

static bool add_as(struct writer *w, struct out_tensor o) {
    const struct file_tensor *t = o.from;
    bool halves = o.change == HF_HALVES, pairs = o.change == HF_INTERLEAVED;
    int dims = o.change == HF_EXPERT || o.change == HF_TURNED ? 3 : pairs ? (strstr(t->name, ".bias") ? 2 : 3) : o.change == HF_TRANSPOSE ? 2 : o.change == HF_VECTOR ? 1 : halves && t->n_dims < 2 ? 2 : t->n_dims;
    int64_t heads = heads_of(w, o.change);
    if (t->n_dims != dims) return err_set(w->err, "tensor %s has %d dimensions, expected %d", t->name, t->n_dims, dims);
    if (heads && (t->size[0] % heads || t->size[0] / heads % 2 || (t->n_dims == 1 && t->dtype != DTYPE_F32)))
        return err_set(w->err, "tensor %s has %" PRId64 " rows, which are no %" PRId64 " heads of an even size", t->name,
                       t->size[0], heads);
    if (o.change == HF_HEADS && t->size[0] != 3 * w->shape.H * w->shape.D)
        return err_set(w->err, "tensor %s has %" PRId64 " rows, expected 3 for each of %" PRId64 " heads of %" PRId64, t->name,
                       t->size[0], w->shape.H, w->shape.D);
    if (o.change == HF_EXPERT) return add_experts(w, &o);
    if (halves || pairs) return add_halves(w, &o);
    if (o.change == HF_TURNED) o.size[1] = t->size[2], o.size[2] = t->size[1];
    if (o.change == HF_TRANSPOSE) o.size[0] = t->size[1], o.size[1] = t->size[0];
    if (o.change == HF_VECTOR) o.n_dims = 2, o.size[1] = t->size[0], o.size[0] = 1;
    return add(w, o);
}

// Tensors that are no weights of a folder: a checkpoint's own, divisors of rope (config.json says them), and up
// projections that go with their gates.
static bool written_elsewhere(const struct writer *w, const char *name) {
    bool experts = (w->shape.family->traits & (HF_GRANITE_MOE | HF_GPT_OSS)) && strstr(name, "ffn_up_exps.");
    bool shared = (w->shape.family->traits & HF_GRANITE_SHARED) && strstr(name, "ffn_up_shexp.");
    return !strncmp(name, "optimizer.", 10) || !strcmp(name, "lehr.seal") || !strcmp(name, "rope_freqs.weight") ||
           !strncmp(name, "rope_factors_", 13) || experts || shared;
}

static bool list_tensors(struct writer *w) {
    char shown[SHOWN];
    for (size_t i = 0; i < w->f->n_tensors; i++) {
        const struct file_tensor *t = &w->f->tensors[i];
        if (written_elsewhere(w, t->name)) continue;
        struct out_tensor o = {.from = t, .dtype = t->n_dims == 1 ? DTYPE_F32 : w->matrices, .n_dims = t->n_dims};
        memcpy(o.size, t->size, sizeof o.size);
        span_shown((struct span){t->name, strlen(t->name)}, shown, sizeof shown);
        if (!hf_name_of(w->shape.family, t->name, o.name, &o.change))
            return err_set(w->err, "tensor %s has no name in a folder of a %s", shown, w->shape.family->class);
        if (t->dtype == DTYPE_COUNT || !dtype_row(t->dtype)->to_f32)
            return err_set(w->err, "tensor %s has type %s, which this program does not read", shown, t->type_name);
        if (!add_as(w, o)) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// model.safetensors

// Order of the file: four-byte tensors first.
static const enum dtype write_order[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static void put_table(struct writer *w, struct text *head) {
    struct json_out j;
    size_t at = 0;
    json_out_open(&j, head);
    json_out_object(&j, NULL);
    json_out_object(&j, "__metadata__");
    json_out_string(&j, "format", "pt", 2);
    json_out_close(&j, '}');
    for (size_t k = 0; k < COUNT_OF(write_order); k++) {
        for (size_t i = 0; i < w->n; i++) {
            const struct out_tensor *o = &w->tensors[i];
            if (o->dtype != write_order[k]) continue;
            json_out_object(&j, o->name);
            json_out_string(&j, "dtype", dtype_row(o->dtype)->name, strlen(dtype_row(o->dtype)->name));
            json_out_array(&j, "shape");
            for (int d = 0; d < o->n_dims; d++) json_out_integer(&j, NULL, o->size[d]);
            json_out_close(&j, ']');
            json_out_array(&j, "data_offsets");
            json_out_integer(&j, NULL, (int64_t)at);
            json_out_integer(&j, NULL, (int64_t)(at += o->bytes));
            json_out_close(&j, ']');
            json_out_close(&j, '}');
        }
    }
    json_out_close(&j, '}');
    while (head->len % 8) text_str(head, " ");
}

// Where row r of the tensor as the folder orders them lies in the file.
static const char *source_row(const struct writer *w, const struct out_tensor *o, int64_t r, size_t row_bytes) {
    const struct file_tensor *t = o->from;
    int64_t heads = t->n_dims == 2 ? heads_of(w, o->change) : 0;
    if (heads) {
        int64_t D = t->size[0] / heads, in = r % D;
        r = r / D * D + in % (D / 2) * 2 + in / (D / 2);
    }
    if (o->change == HF_HEADS && t->n_dims == 2) { // h, part, d there is part, h, d here
        int64_t D = w->shape.D, d = r % D, part = r / D % 3, h = r / D / 3;
        r = (part * w->shape.H + h) * D + d;
    }
    if (o->up) {
        int64_t F = t->size[t->n_dims - 2], in = r % (2 * F);
        if (in >= F) t = o->up;
        r = r / (2 * F) * F + in % F;
    }
    return (const char *)t->data + (size_t)(o->first + r) * row_bytes;
}

// n weights of one row, in the tensor's dtype, bit for bit where that is the file's.
static void convert_row(const struct out_tensor *o, const char *from, float *stage, char *to, int64_t n) {
    const struct dtype_row *in = dtype_row(o->from->dtype), *out = dtype_row(o->dtype);
    if (in == out && o->change != HF_NORM) {
        memcpy(to, from, (size_t)n * (size_t)out->block_bytes);
        return;
    }
    in->to_f32(from, stage, n);
    for (int64_t i = 0; o->change == HF_NORM && i < n; i++) stage[i] -= 1;
    out->from_f32(stage, to, n);
}

// A bias of queries or keys: its numbers go the way of the rows. False when there is nothing to do.
static bool unpair_bias(const struct writer *w, const struct out_tensor *o, const float *from, float *to) {
    int64_t n = o->from->size[0], heads = heads_of(w, o->change), D = w->shape.D;
    if (o->n_dims != 1 || (!heads && o->change != HF_HEADS)) return false;
    if (heads) D = n / heads;
    for (int64_t i = 0; i < n; i++) {
        int64_t h = i / D, d = i % D;
        to[i] = heads ? from[h * D + d % (D / 2) * 2 + d / (D / 2)] : from[(h % 3 * w->shape.H + h / 3) * D + d];
    }
    return true;
}

static size_t row_bytes_of(const struct file_tensor *t) {
    size_t bytes = 0;
    bool whole = dtype_row_bytes(t->dtype, t->size[t->n_dims - 1], &bytes);
    assert(whole); // the reader checked it
    (void)whole;
    return bytes;
}

// Rows become columns, matrix by matrix; those of an up projection stand between those of its gate. A row of biases is a
// row of such columns.
static void put_transposed(const struct out_tensor *o, struct file_out *out) {
    bool bias = o->change == HF_INTERLEAVED && o->n_dims == 2;
    size_t row_bytes = row_bytes_of(o->from), width = (size_t)dtype_row(o->dtype)->block_bytes;
    int64_t mats = bias ? o->size[0] : o->n_dims == 3 ? o->size[0] : 1, step = o->up ? 2 : 1;
    int64_t rows = bias ? 1 : o->size[o->n_dims - 2], cols = o->size[o->n_dims - 1];
    int64_t count = bias ? 1 : cols / step, n = bias ? cols / step : rows, stride = bias ? step : cols; // of rows in the file
    size_t all_bytes = (size_t)(rows * cols) * width;
    float *stage = mem_array((size_t)n, sizeof *stage, "weights to write");
    char *packed = mem_array((size_t)n, sizeof(float), "weights to write"), *all = mem_array(all_bytes, 1, "weights to write");
    for (int64_t e = 0; e < mats; e++) {
        for (int64_t c = 0; c < count * step; c++) {
            const struct file_tensor *t = c % step ? o->up : o->from;
            convert_row(o, (const char *)t->data + (size_t)(e * count + c / step) * row_bytes, stage, packed, n);
            for (int64_t r = 0; r < n; r++)
                memcpy(all + (size_t)(r * stride + c) * width, packed + (size_t)r * width, width);
        }
        file_out_write(out, all, all_bytes);
    }
    mem_free(stage);
    mem_free(packed);
    mem_free(all);
}

static void put_tensor(const struct writer *w, const struct out_tensor *o, struct file_out *out) {
    if (o->change == HF_TRANSPOSE || o->change == HF_INTERLEAVED || o->change == HF_TURNED) {
        put_transposed(o, out);
        return;
    }
    size_t row_bytes = row_bytes_of(o->from), width = (size_t)dtype_row(o->dtype)->block_bytes;
    int64_t cols = o->size[o->n_dims - 1], rows = 1;
    for (int d = 0; d + 1 < o->n_dims; d++) rows *= o->size[d];
    int64_t step = cols < STAGE ? STAGE / cols : 1;
    if (step > rows) step = rows;
    float *stage = mem_array((size_t)cols, sizeof *stage, "weights to write");
    char *packed = mem_array((size_t)(step * cols), sizeof(float), "weights to write");
    for (int64_t at = 0; at < rows; at += step) {
        int64_t n = rows - at < step ? rows - at : step;
        for (int64_t r = 0; r < n; r++)
            convert_row(o, source_row(w, o, at + r, row_bytes), stage, packed + (size_t)(r * cols) * width, cols);
        if (unpair_bias(w, o, (const float *)(const void *)packed, stage))
            memcpy(packed, stage, (size_t)cols * sizeof *stage);
        file_out_write(out, packed, (size_t)(n * cols) * width);
    }
    mem_free(stage);
    mem_free(packed);
}

static bool write_weights(struct writer *w) {
    struct text path = {0}, head = {0}, length = {0};
    text_fmt(&path, "%s/model.safetensors", w->folder);
    struct file_out *out = file_out_open(path.data, w->err);
    text_free(&path);
    if (!out) return false;
    put_table(w, &head);
    text_int(&length, head.len, 8);
    file_out_write(out, length.data, length.len);
    file_out_write(out, head.data, head.len);
    for (size_t k = 0; k < COUNT_OF(write_order); k++)
        for (size_t i = 0; i < w->n; i++)
            if (w->tensors[i].dtype == write_order[k]) put_tensor(w, &w->tensors[i], out);
    bool fits = head.len <= ST_HEADER_MAX;
    text_free(&head);
    text_free(&length);
    if (fits) return file_out_commit(out, w->err);
    file_out_abort(out);
    return err_set(w->err, "the table of tensors is longer than a safetensors file may have");
}

// ---------------------------------------------------------------------------------------------------------------

static bool prepare(struct writer *w) {
    struct hf_shape *s = &w->shape;
    struct span arch;
    char key[96], shown[SHOWN];
    int64_t experts = 0, window = 0, ctx = 0;
    if (!meta_text(w->f, "general.architecture", true, &arch, w->err)) return false;
    const struct {
        const char *rest;
        bool required;
        int64_t min, max, *to;
    } whole[] = {
        {"expert_count", false, 0, 4096, &experts},       {"attention.sliding_window", false, 0, INT64_MAX, &window},
        {"context_length", true, 1, 1 << 24, &ctx},       {"embedding_length", true, 1, 1 << 17, &s->C},
        {"block_count", true, 1, 1024, &s->L},            {"attention.head_count", true, 1, 1024, &s->H},
        {"attention.head_count_kv", false, 1, 1024, &s->G}, {"attention.key_length", false, 1, 1 << 20, &s->D},
    };
    for (size_t i = 0; i < COUNT_OF(whole); i++) {
        snprintf(key, sizeof key, "%.*s.%s", (int)(arch.n < 40 ? arch.n : 40), arch.p, whole[i].rest);
        if (!meta_int(w->f, key, whole[i].required, whole[i].min, whole[i].max, whole[i].to, w->err)) return false;
    }
    if (!s->G) s->G = s->H;
    if (!s->D) s->D = s->C / s->H;
    bool shared = model_file_tensor(w->f, "blk.0.ffn_up_shexp.weight") != NULL;
    s->family = hf_family_of(arch, experts > 0, shared, window > 0 && window < ctx);
    if (!s->family)
        return err_set(w->err, "no class of transformers is known here for a model of architecture '%s'%s",
                       span_shown(arch, shown, sizeof shown), experts ? " with experts" : "");
    const struct file_tensor *embed = model_file_tensor(w->f, "token_embd.weight");
    if (!embed || embed->n_dims != 2) return err_set(w->err, "tensor token_embd.weight is missing or no matrix");
    s->V = embed->size[0];
    s->tied = !model_file_tensor(w->f, "output.weight");
    s->matrices = w->matrices;
    return list_tensors(w);
}

bool hf_write(const struct model_file *f, const char *folder, enum dtype matrices, const struct text *tokenizer_json,
              struct text *notes, struct err *err) {
    assert(matrices == DTYPE_F32 || matrices == DTYPE_F16 || matrices == DTYPE_BF16);
    struct writer w = {.f = f, .folder = folder, .matrices = matrices, .err = err};
    struct text config = {0}, path = {0};
    bool good = prepare(&w) && hf_make_config(f, &w.shape, &config, err) && file_make_folder(folder, err);
    if (good) {
        text_fmt(&path, "%s/config.json", folder);
        good = !file_exists(path.data) || !unlink(path.data) || err_set(err, "%s: cannot be replaced", path.data);
    }
    good = good && write_weights(&w) && hf_write_tokenizer(f, folder, tokenizer_json, err) &&
           hf_write_text(folder, "config.json", &config, err);
    if (good && notes && (w.shape.family->traits & HF_MINICPM))
        text_str(notes, "transformers loads a MiniCPM with the code of its publishers only (trust_remote_code)\n");
    text_free(&config);
    text_free(&path);
    mem_free(w.tensors);
    return good;
}
