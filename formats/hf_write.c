// hf_write.c: a Hugging Face folder from any open file.
//
// The mirror of hf_folder.c and hf_config.c: names by the same table, rows of Q and K from adjacent
// pairs back to halves (row h, j D/2 + i there is row h, 2i+j here). Two whitelists keep the folder
// honest: every key of the architecture must be one that config.json got (or say "off"), every
// tensor must have a name there; what has none is refused, not left out.
//
// Tensors of four bytes come first, so that every one lies at a multiple of its width. config.json
// is removed first and written last: a folder is a model when it has one.
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STAGE = 1 << 20 }; // floats converted at a time

struct out_tensor {
    const struct file_tensor *from;
    char name[128];
    enum hf_change change;
    enum dtype dtype;
    size_t bytes;
};
struct writer {
    const struct model_file *f;
    const char *folder;
    const struct hf_family *family;
    enum dtype matrices;
    struct err *err;
    int64_t H, G;
    struct out_tensor *tensors;
    size_t n;
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
// config.json

// The double of the shortest decimal that is this float: 1e-05 and not 9.99999974737875e-06.
static double plain_double(double x) {
    char digits[40];
    for (int n = 1; n <= 9; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, x);
        if ((float)strtod(digits, NULL) == (float)x) break;
    }
    return strtod(digits, NULL);
}

enum row_kind { WHOLE, REAL, IGNORED };
static const struct config_row {
    const char *gguf; // behind "<arch>."
    const char *hf;
    enum row_kind kind;
    bool required;
    bool granite; // only there
} config_rows[] = {
    {"vocab_size", NULL, IGNORED, false, false}, // the embedding says it
    {"embedding_length", "hidden_size", WHOLE, true, false},
    {"feed_forward_length", "intermediate_size", WHOLE, true, false},
    {"block_count", "num_hidden_layers", WHOLE, true, false},
    {"attention.head_count", "num_attention_heads", WHOLE, true, false},
    {"attention.head_count_kv", NULL, IGNORED, false, false},
    {"attention.key_length", NULL, IGNORED, false, false},
    {"attention.value_length", NULL, IGNORED, false, false},
    {"rope.dimension_count", NULL, IGNORED, false, false},
    {"context_length", "max_position_embeddings", WHOLE, true, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", REAL, true, false},
    {"rope.freq_base", "rope_theta", REAL, false, false},
    {"embedding_scale", "embedding_multiplier", REAL, false, true},
    {"attention.scale", "attention_multiplier", REAL, false, true},
    {"residual_scale", "residual_multiplier", REAL, false, true},
    {"logit_scale", "logits_scaling", REAL, false, true},
    {"rope.scaling.finetuned", NULL, IGNORED, false, false},
    {"attention.causal", NULL, IGNORED, false, false},
};

static bool refuse_other_keys(struct writer *w) {
    size_t n = strlen(w->family->arch);
    char shown[SHOWN];
    for (size_t i = 0; i < w->f->n_keys; i++) {
        const struct meta_entry *e = &w->f->keys[i];
        if (e->key.n <= n || memcmp(e->key.p, w->family->arch, n) || e->key.p[n] != '.') continue;
        struct span rest = {e->key.p + n + 1, e->key.n - n - 1};
        bool known = false, off = e->type != GGUF_ARRAY && e->type != GGUF_TEXT;
        for (size_t k = 0; k < COUNT_OF(config_rows); k++)
            known = known || (span_is(rest, config_rows[k].gguf) &&
                              (!config_rows[k].granite || !strcmp(w->family->arch, "granite")));
        for (size_t b = 0; off && b < gguf_type_bytes(e->type); b++) off = e->at[b] == 0;
        if (e->type == GGUF_TEXT && span_is(rest, "rope.scaling.type"))
            off = e->count == 4 && !memcmp(e->at, "none", 4);
        if (!known && !off)
            return err_set(w->err, "%s has the key '%s', which config.json of a %s cannot say",
                           path_end(w->f->map.path), span_shown(e->key, shown, sizeof shown),
                           w->family->class);
    }
    return true;
}

// What an absent or zero number means in GGUF.
static double usual(const char *gguf, int64_t D) {
    return !strcmp(gguf, "rope.freq_base") ? 1e4 : !strcmp(gguf, "attention.scale") ? 1 / sqrt((double)D) : 1;
}

static bool put_rows(struct writer *w, struct json_out *j, int64_t D) {
    char key[96];
    for (size_t i = 0; i < COUNT_OF(config_rows); i++) {
        const struct config_row *r = &config_rows[i];
        if (r->kind == IGNORED || (r->granite && strcmp(w->family->arch, "granite"))) continue;
        snprintf(key, sizeof key, "%s.%s", w->family->arch, r->gguf);
        int64_t x = 0;
        double d = 0;
        if (r->kind == WHOLE) {
            if (!meta_int(w->f, key, r->required, 1, INT32_MAX, &x, w->err)) return false;
            json_out_integer(j, r->hf, x);
        } else {
            if (!meta_real(w->f, key, r->required, 0, 1e30, &d, w->err)) return false;
            json_out_number(j, r->hf, plain_double(d > 0 ? d : usual(r->gguf, D)));
        }
    }
    return true;
}

static bool write_config(struct writer *w, int64_t C, int64_t V, bool tied) {
    struct text t = {0};
    struct json_out j;
    char key[96];
    int64_t D = C / w->H;
    snprintf(key, sizeof key, "%s.attention.key_length", w->family->arch);
    if (!meta_int(w->f, key, false, 1, 1 << 20, &D, w->err)) return false;
    static const char *const names[] = {[DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    json_out_open(&j, &t);
    json_out_object(&j, NULL);
    json_out_array(&j, "architectures");
    json_out_string(&j, NULL, w->family->class, strlen(w->family->class));
    json_out_close(&j, ']');
    json_out_string(&j, "model_type", w->family->arch, strlen(w->family->arch));
    bool good = put_rows(w, &j, D);
    json_out_integer(&j, "num_key_value_heads", w->G);
    json_out_integer(&j, "head_dim", D);
    json_out_integer(&j, "vocab_size", V);
    json_out_string(&j, "hidden_act", w->family->act, strlen(w->family->act));
    json_out_bool(&j, "tie_word_embeddings", tied);
    json_out_bool(&j, "attention_bias", model_file_tensor(w->f, "blk.0.attn_q.bias") != NULL);
    json_out_bool(&j, "mlp_bias", model_file_tensor(w->f, "blk.0.ffn_up.bias") != NULL);
    json_out_null(&j, "rope_scaling");
    json_out_string(&j, "torch_dtype", names[w->matrices], strlen(names[w->matrices]));
    static const char *const ids[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                         {"tokenizer.ggml.eos_token_id", "eos_token_id"}};
    for (size_t i = 0; good && i < COUNT_OF(ids); i++) {
        int64_t id = -1;
        good = meta_int(w->f, ids[i][0], false, 0, INT32_MAX, &id, w->err);
        if (id >= 0) json_out_integer(&j, ids[i][1], id);
        else json_out_null(&j, ids[i][1]); // an absent one would mean the class's own
    }
    json_out_close(&j, '}');
    text_str(&t, "\n");
    good = good && hf_write_text(w->folder, "config.json", &t, w->err);
    text_free(&t);
    return good;
}

// ---------------------------------------------------------------------------------------------------------------
// model.safetensors

static bool list_tensors(struct writer *w) {
    char shown[SHOWN];
    w->tensors = mem_array(w->f->n_tensors, sizeof *w->tensors, "tensors to write");
    for (size_t i = 0; i < w->f->n_tensors; i++) {
        const struct file_tensor *t = &w->f->tensors[i];
        struct out_tensor *o = &w->tensors[w->n];
        if (!strncmp(t->name, "adam.", 5) || !strcmp(t->name, "lehr.seal")) continue; // a checkpoint's
        *o = (struct out_tensor){.from = t, .dtype = t->n_dims == 1 ? DTYPE_F32 : w->matrices};
        span_shown((struct span){t->name, strlen(t->name)}, shown, sizeof shown);
        if (!hf_name_of(w->family, t->name, o->name, &o->change))
            return err_set(w->err, "tensor %s has no name in a folder of a %s", shown, w->family->class);
        if (t->dtype == DTYPE_COUNT || !dtype_row(t->dtype)->to_f32)
            return err_set(w->err, "tensor %s has type %s, which this program does not read", shown, t->type_name);
        int64_t heads = o->change == HF_ROWS_Q ? w->H : o->change == HF_ROWS_K ? w->G : 1;
        if (heads > 1 && (t->size[0] % heads || t->size[0] / heads % 2 || (t->n_dims == 1 && t->dtype != DTYPE_F32)))
            return err_set(w->err, "tensor %s has %" PRId64 " rows, which are no %" PRId64 " heads of an even size",
                           shown, t->size[0], heads);
        size_t weights = t->bytes / (size_t)dtype_row(t->dtype)->block_bytes * (size_t)dtype_row(t->dtype)->block_weights;
        if (!size_mul(weights, (size_t)dtype_row(o->dtype)->block_bytes, &o->bytes))
            return err_set(w->err, "tensor %s is too large", shown);
        w->n++;
    }
    return true;
}

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
            for (int d = 0; d < o->from->n_dims; d++) json_out_integer(&j, NULL, o->from->size[d]);
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

// Rows [at, at + rows) of the tensor as the folder orders them, in its dtype.
static void convert_rows(const struct writer *w, const struct out_tensor *o, int64_t at, int64_t rows, float *stage,
                         char *packed) {
    const struct file_tensor *t = o->from;
    const struct dtype_row *from = dtype_row(t->dtype), *to = dtype_row(o->dtype);
    int64_t all = t->n_dims == 1 ? 1 : (int64_t)(t->bytes / (size_t)from->block_bytes) * from->block_weights / t->size[t->n_dims - 1];
    size_t row_bytes = t->bytes / (size_t)all;
    int64_t cols = (int64_t)(o->bytes / (size_t)to->block_bytes) / all;
    int64_t heads = o->change == HF_ROWS_Q ? w->H : o->change == HF_ROWS_K ? w->G : 0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t source = at + r;
        if (heads && t->n_dims == 2) {
            int64_t D = t->size[0] / heads, in = source % D;
            source = source / D * D + in % (D / 2) * 2 + in / (D / 2);
        }
        const char *p = (const char *)t->data + (size_t)source * row_bytes;
        char *q = packed + (size_t)(r * cols) * (size_t)to->block_bytes;
        if (from == to) {
            memcpy(q, p, row_bytes); // bit for bit
        } else {
            from->to_f32(p, stage, cols);
            to->from_f32(stage, q, cols);
        }
    }
}

// A bias of queries or keys: its numbers go the way of the rows.
static void unpair_bias(const struct writer *w, const struct out_tensor *o, const float *from, float *to) {
    int64_t n = o->from->size[0], D = n / (o->change == HF_ROWS_Q ? w->H : w->G);
    for (int64_t i = 0; i < n; i++) to[i] = from[i / D * D + i % D % (D / 2) * 2 + i % D / (D / 2)];
}

static void put_tensor(const struct writer *w, const struct out_tensor *o, struct file_out *out) {
    const struct file_tensor *t = o->from;
    bool vector = t->n_dims == 1;
    int64_t cols = t->size[t->n_dims - 1], rows = 1;
    for (int d = 0; d + 1 < t->n_dims; d++) rows *= t->size[d];
    int64_t step = cols < STAGE ? STAGE / cols : 1;
    if (step > rows) step = rows;
    float *stage = mem_array((size_t)cols, sizeof *stage, "weights to write");
    char *packed = mem_array((size_t)(step * cols), sizeof(float), "weights to write");
    for (int64_t at = 0; at < rows; at += step) {
        int64_t n = rows - at < step ? rows - at : step;
        convert_rows(w, o, at, n, stage, packed);
        if (vector && (o->change == HF_ROWS_Q || o->change == HF_ROWS_K)) {
            unpair_bias(w, o, (const float *)(const void *)packed, stage);
            memcpy(packed, stage, (size_t)cols * sizeof *stage);
        }
        file_out_write(out, packed, (size_t)(n * cols) * (size_t)dtype_row(o->dtype)->block_bytes);
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

static bool prepare(struct writer *w, int64_t *C, int64_t *V, bool *tied) {
    struct span arch;
    char key[96], shown[SHOWN];
    if (!meta_text(w->f, "general.architecture", true, &arch, w->err)) return false;
    w->family = hf_family_of(arch);
    if (!w->family)
        return err_set(w->err, "a model of architecture '%s' cannot be written as a folder; llama and granite can",
                       span_shown(arch, shown, sizeof shown));
    snprintf(key, sizeof key, "%s.embedding_length", w->family->arch);
    if (!meta_int(w->f, key, true, 1, 1 << 17, C, w->err)) return false;
    snprintf(key, sizeof key, "%s.attention.head_count", w->family->arch);
    if (!meta_int(w->f, key, true, 1, 1024, &w->H, w->err)) return false;
    w->G = w->H;
    snprintf(key, sizeof key, "%s.attention.head_count_kv", w->family->arch);
    if (!meta_int(w->f, key, false, 1, 1024, &w->G, w->err)) return false;
    const struct file_tensor *embed = model_file_tensor(w->f, "token_embd.weight");
    if (!embed || embed->n_dims != 2) return err_set(w->err, "tensor token_embd.weight is missing or no matrix");
    *V = embed->size[0];
    *tied = !model_file_tensor(w->f, "output.weight");
    return refuse_other_keys(w) && list_tensors(w);
}

bool hf_write(const struct model_file *f, const char *folder, enum dtype matrices, struct text *notes, struct err *err) {
    assert(matrices == DTYPE_F32 || matrices == DTYPE_F16 || matrices == DTYPE_BF16);
    struct writer w = {.f = f, .folder = folder, .matrices = matrices, .err = err};
    int64_t C = 0, V = 0;
    bool tied = false, good = prepare(&w, &C, &V, &tied) && file_make_folder(folder, err);
    if (good) {
        struct text config = {0};
        text_fmt(&config, "%s/config.json", folder);
        good = !file_exists(config.data) || !unlink(config.data) ||
               err_set(err, "%s: cannot be replaced", config.data);
        text_free(&config);
    }
    good = good && write_weights(&w) && hf_write_tokenizer(f, folder, notes, err) && write_config(&w, C, V, tied);
    mem_free(w.tensors);
    return good;
}
