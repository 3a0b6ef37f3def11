// model.c: weights: from a file for running, from a seed for training, and back into a file.
//
// Everything walks the table of parameters (config.c), so a tensor is named, shaped, initialised and checked in one
// row. A model for running points into its file where the backend can read it there; a model for training owns one
// block of weights (f32, then the bf16 copies that products read) and one of gradients.
//
// Initial weights are a pure function of (seed, number of the parameter, number of the element): four normal values
// come from the four words of one Philox block, so threads and the order of filling do not matter.
#include "model/internal.h"

#include <math.h>
#include <string.h>

// --- slabs ---------------------------------------------------------------------------------------------------------

void *slab_take(struct slab *s, int64_t count, size_t each_bytes) {
    size_t bytes, end;
    assert(count >= 0);
    if (s->too_big || !size_mul((size_t)count, each_bytes, &bytes) || !size_add(s->used, bytes, &end) ||
        end > SIZE_MAX - 63) {
        s->too_big = true;
        return NULL;
    }
    void *at = s->base ? s->base + s->used : NULL;
    s->used = arena_round(end);
    return at;
}

struct tensor slab_tensor(struct slab *s, enum dtype dtype, int64_t rows, int64_t cols) {
    size_t row_bytes;
    if (!dtype_row_bytes(dtype, cols, &row_bytes)) {
        s->too_big = true;
        return (struct tensor){0};
    }
    void *data = slab_take(s, rows, row_bytes);
    return (struct tensor){data, dtype, LAYOUT_ROWS, 1, rows, cols, row_bytes};
}

// --- a model's skeleton --------------------------------------------------------------------------------------------

// Indices of the table's rows, which lie in the order of config_params_table.
static void number_params(struct model *m) {
    const struct model_config *c = &m->config;
    const struct family *a = c->family;
    int at = 0;
    m->embed = at++;
    m->positions = a->learned_positions ? at++ : -1;
    for (int64_t l = 0; l < c->L; l++) {
        int index[LAYER_TENSOR_COUNT];
        for (int t = 0; t < LAYER_TENSOR_COUNT; t++) index[t] = config_tensors(c) >> t & 1 ? at++ : -1;
        memcpy(&m->layers[l], index, sizeof index); // a field for each tensor, in order
    }
    m->out_norm = a->bare_norm ? -1 : at++;
    m->out_norm_bias = config_tensors(c) & HAS(attn_norm_bias) ? at++ : -1;
    m->head = c->tied ? m->embed : at++;
    m->head_bias = c->head_bias ? at++ : -1;
    assert(at == m->n_params);
}

// Table, indices and rope frequencies; no weights yet. f may be NULL: only a file has divisors of the frequencies.
static struct model *skeleton(const struct model_config *c, const struct model_file *f, const struct backend *b,
                              struct err *err) {
    struct model *m = mem_alloc(sizeof *m, "model");
    m->config = *c;
    m->backend = b;
    m->compute = DTYPE_F32;
    m->params = config_params_table(c, &m->n_params);
    m->layers = mem_array((size_t)c->L, sizeof *m->layers, "layer table");
    number_params(m);
    m->unsettled = m->n_params;
    size_t pairs = (size_t)config_rotated(c) / 2, bytes = pairs * sizeof(float);
    m->rope_freq = b->alloc(2 * bytes, "rope frequencies", err);
    if (!m->rope_freq) {
        model_free(m);
        return NULL;
    }
    m->rope_freq_local = m->rope_freq + pairs;
    float *freq = mem_array(pairs, 2 * sizeof *freq, "rope frequencies");
    const char *names[2];
    rope_divisor_names(c, names);
    for (int i = 0; i < 2 && f; i++) {
        const struct file_tensor *t = names[i] ? model_file_tensor(f, names[i]) : NULL;
        if (!t) continue;
        m->rope_divisors[i] = mem_array(pairs, sizeof *freq, "rope divisors");
        memcpy(m->rope_divisors[i], t->data, bytes);
    }
    rope_frequencies(c, false, m->rope_divisors, c->rope_ctx, freq);
    b->upload(m->rope_freq, freq, bytes);
    rope_frequencies(c, true, m->rope_divisors, c->rope_ctx, freq);
    b->upload(m->rope_freq_local, freq, bytes);
    mem_free(freq);
    return m;
}

static void param_free(const struct backend *b, struct param *p) {
    if (p->owned) b->free(p->w.data);
    for (int64_t e = 0; p->experts_owned && e < p->mats; e++)
        if (p->experts_owned[e]) b->free(p->experts[e].data);
    mem_free(p->experts);
    mem_free(p->experts_owned);
}

void model_free(struct model *m) {
    if (!m) return;
    if (m->whole) { // all it points to is lent
        mem_free(m);
        return;
    }
    for (int i = 0; i < m->n_params; i++) param_free(m->backend, &m->params[i]);
    if (m->weights_block) m->backend->free(m->weights_block);
    if (m->grads_block) m->backend->free(m->grads_block);
    if (m->rope_freq) m->backend->free(m->rope_freq);
    mem_free(m->rope_divisors[0]);
    mem_free(m->rope_divisors[1]);
    mem_free(m->params);
    mem_free(m->layers);
    mem_free(m->expert_use);
    mem_free(m);
}

// --- checking a file against the table -----------------------------------------------------------------------------

static void shape_text(char buf[64], int n_dims, const int64_t size[4]) {
    int at = snprintf(buf, 64, "[");
    for (int i = 0; i < n_dims && at < 56; i++) // 4 numbers below 2^31 fit
        at += snprintf(buf + at, 64 - (size_t)at, "%s%lld", i ? "," : "", (long long)size[i]);
    snprintf(buf + at, 64 - (size_t)at, "]");
}

// The shape of the file's tensor that p is, or is a part of.
static int file_shape(const struct param *p, int64_t size[4]) {
    int64_t outer = p->whole ? p->whole : param_is_vector(p) ? p->cols : p->rows;
    size[0] = outer, size[1] = p->cols, size[2] = size[3] = 0;
    if (param_is_vector(p) && p->rows > 1) return size[0] = p->rows, 2; // biases of experts
    if (param_is_vector(p)) return 1;
    if (p->mats == 1) return 2;
    size[0] = p->mats, size[1] = p->rows, size[2] = p->cols;
    return 3;
}

static bool check_tensor(const struct param *p, const struct model_file *f, struct err *err) {
    const struct file_tensor *t = model_file_tensor(f, p->name);
    if (!t) return err_set(err, "tensor %s is missing", p->name);
    int64_t size[4], count = 1;
    int n_dims = file_shape(p, size);
    bool same = t->n_dims == n_dims;
    for (int i = 0; i < n_dims && same; i++) same = t->size[i] == size[i], count *= i + 1 < n_dims ? size[i] : 1;
    if (!same) {
        char expected[64], found[64];
        shape_text(expected, n_dims, size);
        shape_text(found, t->n_dims, t->size);
        return err_set(err, "tensor %s has shape %s, expected %s", p->name, found, expected);
    }
    if (t->dtype == DTYPE_COUNT || t->dtype == DTYPE_I32)
        return err_set(err, "tensor %s has type %s, which this program does not read", p->name, t->type_name);
    if (param_is_vector(p) && p->whole && dtype_row(t->dtype)->block_weights > 1)
        return err_set(err, "tensor %s has type %s, which cannot be cut into parts", p->name, t->type_name);
    size_t row_bytes;
    if (!dtype_row_bytes(t->dtype, n_dims > 1 ? p->cols : size[0], &row_bytes) || row_bytes * (size_t)count != t->bytes)
        return err_set(err, "tensor %s has %zu bytes, which is not its shape times its type", p->name, t->bytes);
    return true;
}

// Divisors of rope's frequencies are no parameter: they are used up when the frequencies are made.
static bool check_divisors(const struct model_config *c, const struct model_file *f, const char *name, struct err *err) {
    const struct file_tensor *t = model_file_tensor(f, name);
    if (!t) return err_set(err, "tensor %s is missing", name);
    if (t->dtype != DTYPE_F32 || t->n_dims != 1 || t->size[0] != config_rotated(c) / 2)
        return err_set(err, "tensor %s has %lld entries of type %s, expected %lld of F32", name,
                       (long long)t->size[0], t->type_name, (long long)(config_rotated(c) / 2));
    for (int64_t j = 0; j < t->size[0]; j++) {
        float x = ((const float *)t->data)[j];
        if (!(x > 0 && x <= 1e9f))
            return err_set(err, "tensor %s holds %g at %lld, expected a divisor above 0", name, (double)x, (long long)j);
    }
    return true;
}

bool params_check_file(const struct model_config *c, const struct model_file *f, struct err *err) {
    int n;
    struct param *table = config_params_table(c, &n);
    const char *divisors[2];
    rope_divisor_names(c, divisors);
    bool good = true;
    size_t expected = 0;
    for (int i = 0; i < 2 && good; i++) {
        if (!divisors[i]) continue;
        good = check_divisors(c, f, divisors[i], err);
        expected++;
    }
    for (int i = 0; i < n && good; i++) {
        good = check_tensor(&table[i], f, err);
        expected += table[i].part == 0;
    }
    // All of the table is there; so the file has more tensors only if one is not in the table.
    size_t tensors = model_file_tensor_count(f);
    for (size_t j = 0; j < tensors && good && tensors > expected; j++) {
        const char *name = model_file_tensor_at(f, j)->name;
        bool known = strncmp(name, "optimizer.", 10) == 0 || strcmp(name, "lehr.seal") == 0 ||
                     (divisors[0] && strcmp(name, divisors[0]) == 0) || (divisors[1] && strcmp(name, divisors[1]) == 0);
        for (int i = 0; i < n && !known; i++) known = strcmp(table[i].name, name) == 0;
        if (!known)
            good = err_set(err, "tensor %s is not part of a %s model as this program knows it", name, c->family->name);
    }
    mem_free(table);
    return good;
}

// --- loading for running -------------------------------------------------------------------------------------------

// Matrix e of what p is in the file.
static struct tensor file_matrix(const struct file_tensor *t, const struct param *p, int64_t e) {
    int64_t all = p->mats * (p->whole ? p->whole : p->rows);
    size_t row_bytes = t->bytes / (size_t)all;
    void *data = (void *)(uintptr_t)t->data; // read only: weight_load and to_f32 take it as such
    return (struct tensor){(char *)data + (size_t)(e * p->rows + p->part) * row_bytes, t->dtype, LAYOUT_ROWS, 1, p->rows,
                           p->cols, row_bytes};
}

// Norms and biases are small and read in f32 whatever the file has.
static void upload_vector(const struct model *m, struct param *p, const struct file_tensor *t) {
    int64_t first = p->part, kept = p->rows * p->cols, count = p->whole ? p->whole : kept;
    float *host = mem_array((size_t)count, sizeof *host, "norm or bias");
    dtype_row(t->dtype)->to_f32(t->data, host, count);
    m->backend->upload(p->w.data, host + first, (size_t)kept * sizeof *host);
    mem_free(host);
}

static bool is_looked_up(const struct model *m, int i) { return i == m->embed || i == m->positions; }
static bool is_multiplied(const struct model *m, int i) { return !is_looked_up(m, i) || i == m->head; }

// A matrix as it lies in the file; model_settle gives it to the backend.
static bool load_matrix(struct model *m, int i, const struct file_tensor *t, struct err *err) {
    struct param *p = &m->params[i];
    const struct backend *b = m->backend;
    enum op product = p->mats > 1 ? OP_MATMUL_EXPERTS : OP_MATMUL;
    if ((is_looked_up(m, i) && !b->supports(OP_EMBED, t->dtype)) || (is_multiplied(m, i) && !b->supports(product, t->dtype)))
        return err_set(err, "tensor %s has type %s, which the %s backend does not read", p->name, t->type_name,
                       b->name);
    p->w = file_matrix(t, p, 0);
    if (p->mats == 1) return true;
    p->experts = mem_array((size_t)p->mats, sizeof *p->experts, "experts");
    p->experts_owned = mem_array((size_t)p->mats, sizeof *p->experts_owned, "experts");
    for (int64_t e = 0; e < p->mats; e++) p->experts[e] = file_matrix(t, p, e);
    return true;
}

// Tables that are only looked up stay in the file where the backend can read them there.
static bool settles(const struct model *m, int i) {
    return !param_is_vector(&m->params[i]) && (is_multiplied(m, i) || !m->backend->reads_host);
}

static bool settle_matrix(struct model *m, struct tensor *w, bool *owned, struct err *err) {
    struct tensor host = *w;
    if (!m->backend->weight_load(w, &host, owned, err)) return false;
    if (*owned) model_file_forget(m->file, host.data, (size_t)host.rows * host.row_bytes);
    return true;
}

bool model_settle(struct model *m, struct err *err) {
    if (m->whole) return model_settle(m->whole, err);
    for (; m->unsettled < m->n_params; m->unsettled++) {
        struct param *p = &m->params[m->unsettled];
        if (!settles(m, m->unsettled)) continue;
        bool good = true;
        if (p->mats == 1) good = p->owned || settle_matrix(m, &p->w, &p->owned, err);
        for (int64_t e = 0; p->mats > 1 && e < p->mats && good; e++)
            good = p->experts_owned[e] || settle_matrix(m, &p->experts[e], &p->experts_owned[e], err);
        if (!good) return err_in(err, "tensor %s", p->name);
    }
    return true;
}

size_t model_unsettled_bytes(const struct model *m) {
    size_t bytes = 0;
    if (m->whole) m = m->whole;
    for (int i = m->unsettled; i < m->n_params; i++)
        if (settles(m, i)) bytes += (size_t)(m->params[i].mats * m->params[i].rows) * m->params[i].w.row_bytes;
    return bytes;
}

static void place_vectors(struct model *m, struct slab *s) {
    for (int i = 0; i < m->n_params; i++)
        if (param_is_vector(&m->params[i])) m->params[i].w = slab_tensor(s, DTYPE_F32, m->params[i].rows, m->params[i].cols);
}

static bool load_all(struct model *m, const struct model_file *f, struct err *err) {
    struct slab norms = {0};
    place_vectors(m, &norms);
    m->weights_bytes = norms.used;
    m->weights_block = m->backend->alloc(norms.used, "norms and biases", err);
    if (!m->weights_block) return false;
    norms = (struct slab){.base = m->weights_block};
    place_vectors(m, &norms);
    for (int i = 0; i < m->n_params; i++) {
        const struct file_tensor *t = model_file_tensor(f, m->params[i].name);
        if (param_is_vector(&m->params[i])) upload_vector(m, &m->params[i], t);
        else if (!load_matrix(m, i, t, err)) return false;
    }
    m->file = f;
    m->unsettled = 0;
    return m->backend->reads_host || model_settle(m, err);
}

struct model *model_load(const struct model_file *f, const struct backend *b, struct err *err) {
    struct model_config c;
    if (!config_read(&c, f, err)) return NULL;
    struct model *m = NULL;
    if (params_check_file(&c, f, err) && (m = skeleton(&c, f, b, err)) && load_all(m, f, err)) return m;
    model_free(m);
    err_in(err, "%s", model_file_path(f));
    return NULL;
}

// Layers are found by their indices and by bits of the config, so fewer of them are found the same. Multipliers that follow from
// the depth stay those of the whole.
struct model *model_prefix(struct model *m, int64_t layers) {
    assert(layers > 0 && layers < m->config.L && !m->whole);
    struct model *p = mem_alloc(sizeof *p, "first layers of a model");
    *p = *m;
    p->config.L = layers;
    p->config.exit_layer = 0;
    p->trainable = false;
    p->whole = m;
    p->weights_block = p->grads_block = NULL;
    p->weights_bytes = p->grads_bytes = 0;
    p->expert_use = NULL;
    return p;
}

// --- making for training -------------------------------------------------------------------------------------------

struct init_job {
    float *out;
    uint64_t seed, stream;
    int64_t first; // element that out[0] is; a multiple of 4
    int64_t count;
    float std;
};

// Elements 4b .. 4b+3 are the two Box-Muller pairs of block b. The uniforms lie in (0,1] with 32 bits, so no value is
// beyond 6.7 standard deviations.
static void init_fill(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct init_job *j = arg;
    (void)thread;
    for (int64_t b = lo; b < hi; b++) {
        uint32_t word[4];
        rng_block(j->seed, j->stream, (uint64_t)(j->first / 4 + b), word);
        float value[4];
        for (int half = 0; half < 2; half++) {
            double u = ((double)word[2 * half] + 1) * 0x1p-32;
            float radius = j->std * sqrtf(-2 * logf((float)u));
            float angle = (float)((double)word[2 * half + 1] * (0x1p-32 * 6.283185307179586));
            value[2 * half] = radius * cosf(angle);
            value[2 * half + 1] = radius * sinf(angle);
        }
        for (int64_t i = 0; i < 4 && 4 * b + i < j->count; i++) j->out[4 * b + i] = value[i];
    }
}

enum { STAGE = 1 << 20 }; // floats that go through host memory at a time

static void init_param(const struct model *m, int i, uint64_t seed, float *stage) {
    const struct param *p = &m->params[i];
    int64_t total = p->mats * p->rows * p->cols;
    for (int64_t at = 0; at < total; at += STAGE) {
        int64_t n = total - at < STAGE ? total - at : STAGE;
        if (param_is_vector(p)) {
            for (int64_t k = 0; k < n; k++) stage[k] = 1;
        } else {
            struct init_job job = {stage, seed, (uint64_t)i, at, n, p->init_std};
            pool_for((n + 3) / 4, 4096, init_fill, &job);
        }
        m->backend->upload((float *)p->w.data + at, stage, (size_t)n * sizeof *stage);
    }
}

// f32 weights in table order, then bf16 copies of what products read.
static void place_weights(struct model *m, struct slab *s) {
    for (int i = 0; i < m->n_params; i++)
        m->params[i].w = slab_tensor(s, DTYPE_F32, m->params[i].mats * m->params[i].rows, m->params[i].cols);
    for (int i = 0; i < m->n_params && m->compute == DTYPE_BF16; i++) {
        struct param *p = &m->params[i];
        bool only_looked_up = i == m->embed && m->head != m->embed;
        if (!param_is_vector(p) && !p->exact && !only_looked_up)
            p->w16 = slab_tensor(s, DTYPE_BF16, p->mats * p->rows, p->cols);
    }
}

static void place_grads(struct model *m, struct slab *s) {
    for (int i = 0; i < m->n_params; i++)
        m->params[i].grad = slab_tensor(s, DTYPE_F32, m->params[i].mats * m->params[i].rows, m->params[i].cols);
}

static void view_experts(struct model *m) {
    for (int i = 0; i < m->n_params; i++) {
        struct param *p = &m->params[i];
        if (p->mats == 1) continue;
        p->experts = mem_array((size_t)p->mats, sizeof *p->experts, "experts");
        for (int64_t e = 0; e < p->mats; e++) p->experts[e] = tensor_rows(model_product_weight(m, i), e * p->rows, p->rows);
    }
}

static bool alloc_trainable(struct model *m, struct err *err) {
    struct slab weights = {0}, grads = {0};
    place_weights(m, &weights);
    place_grads(m, &grads);
    if (weights.too_big || grads.too_big)
        return err_set(err, "a model of this size does not fit in an address space");
    m->weights_bytes = weights.used;
    m->grads_bytes = grads.used;
    m->weights_block = m->backend->alloc(weights.used, "weights", err);
    if (!m->weights_block) return false;
    m->grads_block = m->backend->alloc(grads.used, "gradients", err);
    if (!m->grads_block) return false;
    weights = (struct slab){.base = m->weights_block};
    grads = (struct slab){.base = m->grads_block};
    place_weights(m, &weights);
    place_grads(m, &grads);
    view_experts(m);
    return true;
}

struct model *model_new(const struct model_config *c, const struct backend *b, enum dtype compute, uint64_t seed,
                        struct err *err) {
    assert(compute == DTYPE_F32 || compute == DTYPE_BF16);
    static const enum op needs[] = {OP_MATMUL, OP_MATMUL_DX};
    if (!config_check(c, err) || !config_trains(c, err)) return NULL;
    for (size_t i = 0; i < COUNT_OF(needs); i++) {
        if (b->supports(needs[i], compute)) continue;
        err_set(err, "the %s backend has no %s for %s weights", b->name, op_name(needs[i]), dtype_row(compute)->name);
        return NULL;
    }
    struct model *m = skeleton(c, NULL, b, err);
    if (!m) return NULL;
    m->trainable = true;
    m->compute = compute;
    if (c->E > 0) m->expert_use = mem_array((size_t)(c->L * c->E), sizeof *m->expert_use, "use of experts");
    if (!alloc_trainable(m, err)) {
        model_free(m);
        return NULL;
    }
    float *stage = mem_array(STAGE, sizeof *stage, "initial weights");
    for (int i = 0; i < m->n_params; i++) init_param(m, i, seed, stage);
    mem_free(stage);
    model_refresh_copies(m);
    return m;
}

void model_refresh_copies(struct model *m) {
    for (int i = 0; i < m->n_params; i++) {
        struct param *p = &m->params[i];
        if (tensor_present(&p->w16)) m->backend->cast(&(struct cast_args){p->w16, p->w});
    }
}

// The f32 weights are one stretch of memory, in table order.
static size_t weights_stretch(const struct model *m) {
    const struct tensor *first = &m->params[0].w, *last = &m->params[m->n_params - 1].w;
    return (size_t)((const char *)last->data - (const char *)first->data) + (size_t)last->rows * last->row_bytes;
}

struct model *model_shadow(const struct model *m, struct err *err) {
    assert(m->trainable);
    struct model *s = mem_alloc(sizeof *s, "copy of the weights");
    *s = *m;
    s->grads_block = NULL;
    s->params = mem_array((size_t)m->n_params, sizeof *s->params, "copy of the weights");
    if (m->expert_use) s->expert_use = mem_array((size_t)(m->config.L * m->config.E), sizeof *s->expert_use, "copy of the use of experts");
    s->weights_block = m->backend->alloc(weights_stretch(m), "copy of the weights", err);
    for (int i = 0; s->weights_block && i < m->n_params; i++) {
        struct param *p = &s->params[i];
        *p = m->params[i];
        p->grad = p->w16 = (struct tensor){0};
        p->w.data = (char *)s->weights_block + ((char *)p->w.data - (char *)m->params[0].w.data);
    }
    if (s->weights_block) return s;
    model_shadow_free(s);
    return NULL;
}

void model_shadow_take(struct model *shadow, const struct model *m) {
    m->backend->copy(shadow->params[0].w.data, m->params[0].w.data, weights_stretch(m));
    if (m->expert_use) memcpy(shadow->expert_use, m->expert_use, (size_t)(m->config.L * m->config.E) * sizeof *m->expert_use);
}

void model_shadow_free(struct model *shadow) { // all else is lent
    if (!shadow) return;
    if (shadow->weights_block) shadow->backend->free(shadow->weights_block);
    mem_free(shadow->expert_use);
    mem_free(shadow->params);
    mem_free(shadow);
}

// What a checkpoint or a model to continue must agree on. Training-only fields are the caller's.
static bool same_config(const struct model_config *ours, const struct model_config *file, struct err *err) {
    if (ours->family != file->family)
        return err_set(err, "the file is a %s model, expected %s", file->family->name, ours->family->name);
    const struct {
        const char *name;
        double ours, file;
    } rows[] = {
        {"width", (double)ours->C, (double)file->C},
        {"layers", (double)ours->L, (double)file->L},
        {"query heads", (double)ours->H, (double)file->H},
        {"key/value heads", (double)ours->G, (double)file->G},
        {"head size", (double)ours->D, (double)file->D},
        {"feed-forward width", (double)ours->F, (double)file->F},
        {"experts", (double)ours->E, (double)file->E},
        {"experts in use", (double)ours->used, (double)file->used},
        {"vocabulary", (double)ours->V, (double)file->V},
        {"tied head", ours->tied, file->tied},
        {"rope base", (double)ours->rope_base, (double)file->rope_base},
        {"norm eps", (double)ours->norm_eps, (double)file->norm_eps},
        {"embedding scale", (double)ours->m_emb, (double)file->m_emb},
        {"attention scale", (double)ours->m_attn, (double)file->m_attn},
        {"residual scale", (double)ours->m_res, (double)file->m_res},
        {"logit scale", (double)ours->logit_divisor, (double)file->logit_divisor},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (fabs(rows[i].ours - rows[i].file) > 1e-6 * fabs(rows[i].ours)) // f32 rounding of a ratio
            return err_set(err, "the file's %s is %g, the model's %g", rows[i].name, rows[i].file, rows[i].ours);
    return true;
}

static void read_param(const struct model *m, const struct param *p, const struct file_tensor *t, float *stage) {
    int64_t all = p->mats * p->rows, step = STAGE / p->cols; // config_check keeps cols at STAGE or below
    size_t row_bytes = t->bytes / (size_t)all;
    assert(step > 0);
    for (int64_t at = 0; at < all; at += step) {
        int64_t rows = all - at < step ? all - at : step;
        dtype_row(t->dtype)->to_f32((const char *)t->data + (size_t)at * row_bytes, stage, rows * p->cols);
        m->backend->upload((float *)p->w.data + at * p->cols, stage, (size_t)(rows * p->cols) * sizeof *stage);
    }
}

bool model_read_weights(struct model *m, const struct model_file *f, struct err *err) {
    assert(m->trainable);
    struct model_config c;
    if (!config_read(&c, f, err)) return false;
    if (!same_config(&m->config, &c, err) || !params_check_file(&c, f, err) || !config_trains(&c, err))
        return err_in(err, "%s", model_file_path(f));
    float *stage = mem_array(STAGE, sizeof *stage, "weights from the file");
    for (int i = 0; i < m->n_params; i++)
        read_param(m, &m->params[i], model_file_tensor(f, m->params[i].name), stage);
    mem_free(stage);
    model_refresh_copies(m);
    return true;
}

// --- writing -------------------------------------------------------------------------------------------------------

static enum dtype written_dtype(const struct param *p, enum dtype matrices) {
    if (param_is_vector(p)) return DTYPE_F32;
    return dtype_that_divides(matrices, p->cols);
}

void model_declare(const struct model *m, enum dtype matrices, struct gguf_out *o, struct text *notes) {
    gguf_out_u32(o, "general.file_type", (uint32_t)dtype_row(matrices)->gguf_file_type);
    if (dtype_row(matrices)->block_weights > 1) gguf_out_u32(o, "general.quantization_version", 2);
    int fallen = 0;
    for (int i = 0; i < m->n_params; i++) {
        const struct param *p = &m->params[i];
        enum dtype d = written_dtype(p, matrices);
        int64_t size[4];
        int n_dims = file_shape(p, size);
        if (p->part) continue; // declared with the first part of the joined tensor, which it follows
        gguf_out_tensor(o, p->name, d, n_dims, size);
        if (!param_is_vector(p) && d != matrices && fallen++ == 0 && notes)
            text_fmt(notes, "%s has rows of %lld weights, no multiple of %d: written as %s instead of %s\n", p->name,
                     (long long)p->cols, dtype_row(matrices)->block_weights, dtype_row(d)->name, dtype_row(matrices)->name);
    }
    if (fallen > 1 && notes) text_fmt(notes, "%d more tensors likewise\n", fallen - 1);
}

// Rows of any dtype come from the device, become f32, then what the file wants.
static void write_param(const struct model *m, const struct param *p, enum dtype d, int64_t room, float *stage, void *raw,
                        void *packed, struct gguf_out *o) {
    const struct dtype_row *from = dtype_row(p->w.dtype), *to = dtype_row(d);
    assert(p->w.layout == LAYOUT_ROWS);
    size_t out_bytes;
    bool whole = dtype_row_bytes(d, p->cols, &out_bytes);
    assert(whole);
    (void)whole;
    int64_t all = p->mats * p->rows, step = room / p->cols;
    for (int64_t at = 0; at < all; at += step) {
        int64_t rows = all - at < step ? all - at : step;
        m->backend->download(raw, (const char *)p->w.data + (size_t)at * p->w.row_bytes,
                             (size_t)rows * p->w.row_bytes);
        from->to_f32(raw, stage, rows * p->cols);
        to->from_f32(stage, packed, rows * p->cols);
        gguf_out_data(o, packed, (size_t)rows * out_bytes);
    }
}

void model_write_data(const struct model *m, enum dtype matrices, struct gguf_out *o) {
    int64_t room = 1 << 17; // floats: little, as a run may be learning beside
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].cols > room) room = m->params[i].cols;
    float *stage = mem_array((size_t)room, sizeof *stage, "weights for the file");
    void *raw = mem_array((size_t)room, sizeof(float), "weights for the file");
    void *packed = mem_array((size_t)room, sizeof(float), "weights for the file");
    for (int i = 0; i < m->n_params; i++)
        write_param(m, &m->params[i], written_dtype(&m->params[i], matrices), room, stage, raw, packed, o);
    mem_free(stage);
    mem_free(raw);
    mem_free(packed);
}
