// optimizer: the rules that move weights, as rows of a table over the backend's updates.
//
// A row says which blocks of numbers it keeps beside the weights and what one parameter's step is; most steps are one
// backend op. The blocks are device memory in the order of the parameter table. The squares of gradients are summed per
// parameter on the device and added here in double in table order, the same bits for any number of threads.
#include "learn/learn.h"

#include <math.h>
#include <string.h>

enum { BLOCKS = OPTIMIZER_BLOCKS };

struct optimizer {
    struct model *model;
    struct optimizer_options options;
    const struct optimizer_row *row;
    float *block[BLOCKS]; // device, NULL where the row has none
    size_t floats[BLOCKS];
    float *room;          // device: what a step needs beside it
    double *sums;         // device: one per parameter, and one for norms of updates
    double *host_sums;
    double weight_sum, lr_max; // schedule-free: sum of the steps' weights in the average, largest rate so far
};

// One parameter's step.
struct one {
    const struct param *p;
    struct tensor block[BLOCKS];
    float lr, decay, grad_scale, mix;
    int64_t step;
};

static int64_t weights_of(const struct param *p) { return p->rows * p->cols; }

// --- rules ---------------------------------------------------------------------------------------------------------

static struct update_args update_of(const struct optimizer *o, const struct one *x, enum update_rule rule) {
    return (struct update_args){
        .rule = rule, .w = x->p->w, .g = x->p->grad, .copy = x->p->w16, .lr = x->lr, .beta1 = (float)o->options.beta1,
        .beta2 = (float)o->options.beta2, .eps = (float)o->options.eps, .weight_decay = x->decay,
        .grad_scale = x->grad_scale, .step = x->step,
    };
}

static void step_two(const struct optimizer *o, const struct one *x, enum update_rule rule) {
    struct update_args a = update_of(o, x, rule);
    a.m = x->block[0], a.v = x->block[1];
    o->model->backend->update(&a);
}

static void step_adamw(const struct optimizer *o, const struct one *x) { step_two(o, x, UPDATE_ADAM); }
static void step_nadamw(const struct optimizer *o, const struct one *x) { step_two(o, x, UPDATE_NADAM); }
static void step_lion(const struct optimizer *o, const struct one *x) { step_two(o, x, UPDATE_LION); }
static void step_sgd(const struct optimizer *o, const struct one *x) { step_two(o, x, UPDATE_SGD); }

static void step_schedule_free(const struct optimizer *o, const struct one *x) {
    struct update_args a = update_of(o, x, UPDATE_SCHEDULE_FREE);
    a.m = x->block[0], a.v = x->block[1], a.x = x->block[2], a.mix = x->mix;
    if (x->step == 1) { // both points begin at the weights
        o->model->backend->copy(a.m.data, a.w.data, (size_t)weights_of(x->p) * sizeof(float));
        o->model->backend->copy(a.x.data, a.w.data, (size_t)weights_of(x->p) * sizeof(float));
    }
    o->model->backend->update(&a);
}

static double norm_of(const struct optimizer *o, struct tensor x) {
    double *to = o->sums + o->model->n_params, sum;
    o->model->backend->sum_squares(&(struct sum_squares_args){.out = to, .x = x});
    o->model->backend->download(&sum, to, sizeof sum);
    return sqrt(sum);
}

// w -= lr d, d in the room.
static void move_by(const struct optimizer *o, const struct one *x, struct tensor d, double lr, float decay) {
    struct update_args a = update_of(o, x, UPDATE_SGD);
    a.g = d, a.grad_scale = 1, a.lr = (float)lr, a.weight_decay = decay;
    o->model->backend->update(&a);
}

// Adam's direction, taken as long as the weights are (You et al. 2020, algorithm 2, phi the identity).
static void step_lamb(const struct optimizer *o, const struct one *x) {
    struct update_args a = update_of(o, x, UPDATE_ADAM);
    a.m = x->block[0], a.v = x->block[1], a.out = tensor_f32(o->room, x->p->rows, x->p->cols);
    o->model->backend->update(&a);
    double size = norm_of(o, x->p->w), step = norm_of(o, a.out);
    move_by(o, x, a.out, (double)x->lr * (size > 0 && step > 0 ? size / step : 1), 0);
}

static void step_adafactor(const struct optimizer *o, const struct one *x) {
    o->model->backend->adafactor(&(struct adafactor_args){
        .w = x->p->w, .g = x->p->grad, .copy = x->p->w16, .row = x->block[0], .column = x->block[1],
        .scratch = (double *)(void *)o->room, .lr = x->lr, .weight_decay = x->decay, .grad_scale = x->grad_scale, .step = x->step});
}

// Matrices between the embedding and the head: those whose spectrum says how they act. The head and the embedding are
// tables of vectors, one a token.
static bool is_hidden(const struct model *m, const struct param *p) {
    int i = (int)(p - m->params);
    return p->rows > 1 && i != m->embed && i != m->positions && i != m->head;
}

// x := about the nearest matrix with equal singular values: five steps of the quintic a x + b (x x') x + c (x x')^2 x
// (Jordan et al. 2024), whose values end between .68 and 1.14. x has a norm of at most 1. Products over the shorter side.
static void orthogonalize(const struct backend *t, enum precision how, struct tensor x, float *room) {
    static const float a = 3.4445f, b = -4.7750f, c = 2.0315f;
    const bool tall = x.rows > x.cols;
    const int64_t side = tall ? x.cols : x.rows;
    struct tensor next = tensor_f32(room, x.rows, x.cols);
    struct tensor gram = tensor_f32(room + x.rows * x.cols, side, side), square = tensor_f32((float *)gram.data + side * side, side, side);
    for (int i = 0; i < 5; i++) {
        if (tall) t->matmul_dw(&(struct matmul_dw_args){gram, x, x, 1, x.rows, how, true});
        else t->matmul(&(struct matmul_args){gram, x, x, 1, false, how});
        t->matmul(&(struct matmul_args){square, gram, gram, 1, false, how}); // a Gram matrix is its own transpose
        t->add(&(struct add_args){gram, gram, square, c / b});
        if (tall) t->matmul(&(struct matmul_args){next, x, gram, b, false, how});
        else t->matmul_dx(&(struct matmul_dx_args){next, gram, x, b, false, how});
        t->add(&(struct add_args){x, next, x, a});
    }
}

static int64_t room_muon(const struct model *m, const struct param *p) {
    if (!is_hidden(m, p)) return 0;
    int64_t side = p->rows < p->cols ? p->rows : p->cols;
    return 2 * weights_of(p) + 2 * side * side;
}

// Momentum's direction, made orthogonal. The step's size fits Adam's rates: a matrix of d x d whose singular values are
// all 1 has elements of d^-1/2, and .2 is what Adam's steps measure (Liu et al. 2025, arXiv 2502.16982, eq. 4). Under muP
// the spectrum itself must keep its size as widths grow (Yang et al. 2023, arXiv 2310.17813), so the factor is that of
// the base width, and the rate's own 1/m_width is not applied again.
static void step_muon(const struct optimizer *o, const struct one *x) {
    const struct param *p = x->p;
    if (!is_hidden(o->model, p)) {
        step_adamw(o, x);
        return;
    }
    enum { BASE_WIDTH = 256 };
    struct update_args a = update_of(o, x, UPDATE_SGD);
    a.m = x->block[0], a.out = tensor_f32(o->room, p->rows, p->cols), a.weight_decay = 0, a.beta1 = (float)o->options.momentum;
    o->model->backend->update(&a);
    double norm = norm_of(o, a.out), rows = (double)p->rows, cols = (double)p->cols;
    o->model->backend->add(&(struct add_args){.out = a.out, .b = a.out, .scale = (float)(1 / (norm + 1e-7))});
    orthogonalize(o->model->backend, tensor_present(&p->w16) ? PRECISION_BF16 : PRECISION_F32, a.out, o->room + weights_of(p));
    const bool mup = o->model->config.mup;
    double size = mup ? 0.2 * sqrt(BASE_WIDTH) * sqrt(fmax(1, rows / cols)) : 0.2 * sqrt(fmax(rows, cols));
    double lr = (double)x->lr / (mup ? (double)p->lr_scale : 1);
    move_by(o, x, a.out, lr * size, (float)((double)x->decay / size * (double)(mup ? p->lr_scale : 1)));
}

static int64_t floats_all(const struct model *m, const struct param *p, int block) {
    (void)m, (void)block;
    return weights_of(p);
}
static int64_t floats_factored(const struct model *m, const struct param *p, int block) {
    (void)m;
    return block == 0 ? p->rows : p->cols;
}
static int64_t floats_muon(const struct model *m, const struct param *p, int block) {
    return block == 1 && is_hidden(m, p) ? 0 : weights_of(p);
}
static int64_t room_rows(const struct model *m, const struct param *p) { // two doubles a row
    (void)m;
    return 4 * p->rows;
}
static int64_t room_all(const struct model *m, const struct param *p) { return floats_all(m, p, 0); }

const struct optimizer_row optimizers[] = {
    {"adamw", {"m", "v"}, floats_all, NULL, step_adamw, .9, .95, 1, "Adam with decoupled weight decay",
     "Loshchilov & Hutter 2019, arXiv 1711.05101"},
    {"nadamw", {"m", "v"}, floats_all, NULL, step_nadamw, .9, .95, 1, "AdamW that looks one step of momentum ahead", "Dozat 2016"},
    {"muon", {"m", "v"}, floats_muon, room_muon, step_muon, .9, .95, 1,
     "hidden matrices by orthogonal momentum, everything else by AdamW", "Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982"},
    {"lion", {"m"}, floats_all, NULL, step_lion, .9, .99, .2, "the sign of momentum; rates a fifth of AdamW's",
     "Chen et al. 2023, arXiv 2302.06675"},
    {"adafactor", {"row", "column"}, floats_factored, room_rows, step_adafactor, 0, 0, 4,
     "second moments by rows and columns, steps relative to the weights", "Shazeer & Stern 2018, arXiv 1804.04235"},
    {"sgd", {"m"}, floats_all, NULL, step_sgd, .9, 0, 10, "gradient with Nesterov's momentum", "Sutskever et al. 2013"},
    {"lamb", {"m", "v"}, floats_all, room_all, step_lamb, .9, .95, 1, "Adam's direction, as long as the weights: large batches",
     "You et al. 2020, arXiv 1904.00962"},
    {"schedule-free", {"fast", "v", "mean"}, floats_all, NULL, step_schedule_free, .9, .95, 1,
     "AdamW with an average of the weights instead of a decay; use --schedule constant", "Defazio et al. 2024, arXiv 2405.15682"},
};
const int optimizer_count = COUNT_OF(optimizers);

const struct optimizer_row *optimizer_find(const char *name) {
    for (int i = 0; i < optimizer_count; i++)
        if (strcmp(optimizers[i].name, name) == 0) return &optimizers[i];
    return NULL;
}

// --- memory --------------------------------------------------------------------------------------------------------

// Floats of every block and of the room, of a table in a model that may be no more than that; false when a count does not
// fit.
static bool count_floats(const struct optimizer_row *row, const struct model *m, size_t floats[BLOCKS], size_t *room) {
    *room = 0;
    for (int k = 0; k < BLOCKS; k++) {
        floats[k] = 0;
        for (int i = 0; i < m->n_params && row->block[k]; i++) {
            size_t weights;
            if (!size_mul((size_t)m->params[i].rows, (size_t)m->params[i].cols, &weights)) return false;
            if (!size_add(floats[k], (size_t)row->floats(m, &m->params[i], k), &floats[k])) return false;
        }
    }
    for (int i = 0; i < m->n_params && row->room; i++) {
        size_t need = (size_t)row->room(m, &m->params[i]);
        if (need > *room) *room = need;
    }
    return true;
}

size_t optimizer_bytes(const struct optimizer_row *row, const struct model_config *c) {
    struct model table = {.config = *c};
    size_t floats[BLOCKS], room, all = 0;
    bool ok = true;
    table.params = config_params_table(c, &table.n_params);
    table.embed = table.positions = table.head = -1;
    for (int i = 0; i < table.n_params; i++) {
        const char *name = table.params[i].name;
        if (!strcmp(name, "token_embd.weight")) table.embed = i;
        if (!strcmp(name, "position_embd.weight")) table.positions = i;
        if (!strcmp(name, "output.weight")) table.head = i;
    }
    ok = count_floats(row, &table, floats, &room) && size_add(all, room, &all);
    for (int k = 0; ok && k < BLOCKS; k++) ok = size_add(all, floats[k], &all);
    ok = ok && size_mul(all, sizeof(float), &all) && size_add(all, ((size_t)table.n_params + 1) * sizeof(double), &all);
    mem_free(table.params);
    return ok ? all : SIZE_MAX;
}

struct optimizer *optimizer_new(struct model *m, const struct optimizer_options *options, struct err *err) {
    assert(m->trainable);
    struct optimizer *o = mem_alloc(sizeof *o, "optimizer");
    size_t room;
    o->model = m;
    o->options = *options;
    o->row = options->row ? options->row : &optimizers[0];
    if (!count_floats(o->row, m, o->floats, &room)) {
        err_set(err, "the moments of this model do not fit into the address space");
        optimizer_free(o);
        return NULL;
    }
    o->host_sums = mem_array((size_t)m->n_params, sizeof(double), "gradient norms");
    bool fine = (o->sums = m->backend->alloc(((size_t)m->n_params + 1) * sizeof(double), "gradient norms", err)) != NULL;
    for (int k = 0; fine && k < BLOCKS; k++)
        if (o->floats[k]) fine = (o->block[k] = m->backend->alloc(o->floats[k] * sizeof(float), "moments", err)) != NULL;
    if (fine && room) fine = (o->room = m->backend->alloc(room * sizeof(float), "an update", err)) != NULL;
    if (fine) return o;
    optimizer_free(o);
    return NULL;
}

void optimizer_free(struct optimizer *o) {
    if (!o) return;
    const struct backend *b = o->model->backend;
    for (int k = 0; k < BLOCKS; k++)
        if (o->block[k]) b->free(o->block[k]);
    if (o->room) b->free(o->room);
    if (o->sums) b->free(o->sums);
    mem_free(o->host_sums);
    mem_free(o);
}

struct optimizer *optimizer_shadow(const struct optimizer *o, struct model *shadow, struct err *err) {
    struct optimizer *s = mem_alloc(sizeof *s, "copy of the moments");
    bool fine = true;
    *s = *o;
    s->model = shadow;
    s->room = NULL, s->sums = NULL, s->host_sums = NULL;
    for (int k = 0; k < BLOCKS; k++) s->block[k] = NULL;
    for (int k = 0; fine && k < BLOCKS; k++)
        if (o->floats[k]) fine = (s->block[k] = shadow->backend->alloc(o->floats[k] * sizeof(float), "copy of the moments", err)) != NULL;
    if (fine) return s;
    optimizer_free(s);
    return NULL;
}

void optimizer_shadow_take(struct optimizer *shadow, const struct optimizer *o) {
    shadow->weight_sum = o->weight_sum, shadow->lr_max = o->lr_max;
    for (int k = 0; k < BLOCKS; k++)
        if (o->block[k]) o->model->backend->copy(shadow->block[k], o->block[k], o->floats[k] * sizeof(float));
}

size_t optimizer_state_bytes(const struct optimizer *o) {
    size_t floats = 0;
    for (int k = 0; k < BLOCKS; k++) floats += o->floats[k];
    return floats * sizeof(float);
}

// --- steps ---------------------------------------------------------------------------------------------------------

double optimizer_grad_norm(struct optimizer *o) {
    const struct model *m = o->model;
    for (int i = 0; i < m->n_params; i++)
        m->backend->sum_squares(&(struct sum_squares_args){.out = o->sums + i, .x = m->params[i].grad});
    m->backend->download(o->host_sums, o->sums, (size_t)m->n_params * sizeof(double));
    double sum = 0;
    for (int i = 0; i < m->n_params; i++) sum += o->host_sums[i];
    return sqrt(sum);
}

void optimizer_layer_norms(const struct optimizer *o, float *to) {
    const struct model *m = o->model;
    const int64_t parts = m->config.L + 2;
    for (int64_t at = 0; at < parts; at++) {
        double sum = 0;
        for (int i = 0; i < m->n_params; i++) {
            long long block = -1;
            bool in_block = sscanf(m->params[i].name, "blk.%lld.", &block) == 1, first = i == m->embed || i == m->positions;
            if (at == (in_block ? block + 1 : first ? 0 : parts - 1)) sum += o->host_sums[i];
        }
        to[at] = (float)sqrt(sum);
    }
}

const struct param *optimizer_bad_gradient(const struct optimizer *o) {
    for (int i = o->model->n_params; i-- > 0;)
        if (!isfinite(o->host_sums[i])) return &o->model->params[i];
    return NULL;
}

const struct param *optimizer_bad_weight(struct optimizer *o) {
    for (int i = 0; i < o->model->n_params; i++)
        if (!isfinite(norm_of(o, o->model->params[i].w))) return &o->model->params[i];
    return NULL;
}

void optimizer_step(struct optimizer *o, double lr, double grad_norm, int64_t step) {
    assert(isfinite(grad_norm) && isfinite(lr) && step >= 1);
    const struct optimizer_options *opt = &o->options;
    double clip = opt->clip > 0 ? fmin(1, opt->clip / (grad_norm + 1e-6)) : 1;
    size_t at[BLOCKS] = {0};
    o->lr_max = fmax(o->lr_max, lr);
    o->weight_sum += o->lr_max * o->lr_max;
    for (int i = 0; i < o->model->n_params; i++) {
        const struct param *p = &o->model->params[i];
        struct one x = {.p = p, .lr = (float)(lr * (double)p->lr_scale), .decay = p->decay ? (float)opt->weight_decay : 0,
                        .grad_scale = (float)clip, .step = step,
                        .mix = o->weight_sum > 0 ? (float)(o->lr_max * o->lr_max / o->weight_sum) : 0};
        for (int k = 0; k < BLOCKS && o->row->block[k]; k++) {
            int64_t floats = o->row->floats(o->model, p, k);
            if (!floats) continue;
            x.block[k] = floats == weights_of(p) ? tensor_f32(o->block[k] + at[k], p->rows, p->cols) : tensor_f32(o->block[k] + at[k], 1, floats);
            at[k] += (size_t)floats;
        }
        o->row->step(o, &x);
    }
    for (int k = 0; k < BLOCKS; k++) assert(at[k] == o->floats[k]);
}

bool optimizer_swap(struct optimizer *o) {
    enum { PIECE = 1 << 16 };
    const struct backend *b = o->model->backend;
    if (o->row->step != step_schedule_free || o->weight_sum == 0) return false;
    float *host = mem_array(2 * PIECE, sizeof(float), "weights"), *mean = o->block[2];
    for (int i = 0; i < o->model->n_params; i++) {
        const struct param *p = &o->model->params[i];
        for (int64_t at = 0, n; at < weights_of(p); at += n) {
            n = weights_of(p) - at < PIECE ? weights_of(p) - at : PIECE;
            size_t bytes = (size_t)n * sizeof(float);
            b->download(host, mean + at, bytes);
            b->download(host + PIECE, (float *)p->w.data + at, bytes);
            b->upload(mean + at, host + PIECE, bytes);
            b->upload((float *)p->w.data + at, host, bytes);
        }
        mean += weights_of(p);
        if (tensor_present(&p->w16)) b->cast(&(struct cast_args){p->w16, p->w});
    }
    mem_free(host);
    return true;
}

// --- files: "optimizer.<block>.<param>", f32, the shape of the parameter or a vector ----------------------------------

// Shape of a parameter's part of a block as files have it: norms are vectors, matrices have two sizes. 0: none of it.
static int block_dims(const struct optimizer *o, const struct param *p, int k, int64_t size[4]) {
    int64_t floats = o->row->floats(o->model, p, k);
    size[0] = floats, size[1] = size[2] = size[3] = 0;
    if (!floats) return 0;
    if (floats != weights_of(p) || p->rows == 1) return 1;
    size[0] = p->rows, size[1] = p->cols;
    return 2;
}

static void block_name(char name[96], const struct optimizer *o, const struct param *p, int k) {
    snprintf(name, 96, "optimizer.%s.%s", o->row->block[k], p->name);
}

// fn for every block's part of every parameter, in the order of files; false as soon as fn says so.
typedef bool part_fn(struct optimizer *o, const struct param *p, int k, float *data, void *arg);
static bool each_part(struct optimizer *o, part_fn *fn, void *arg) {
    for (int k = 0; k < BLOCKS && o->row->block[k]; k++) {
        float *data = o->block[k];
        for (int i = 0; i < o->model->n_params; i++) {
            const struct param *p = &o->model->params[i];
            int64_t floats = o->row->floats(o->model, p, k);
            if (floats && !fn(o, p, k, data, arg)) return false;
            data += floats;
        }
    }
    return true;
}

static bool declare_part(struct optimizer *o, const struct param *p, int k, float *data, void *out) {
    char name[96];
    int64_t size[4];
    (void)data;
    int dims = block_dims(o, p, k, size);
    block_name(name, o, p, k);
    gguf_out_tensor(out, name, DTYPE_F32, dims, size);
    return true;
}

void optimizer_keys(const struct optimizer *o, struct gguf_out *out) {
    gguf_out_text(out, "train.optimizer", o->row->name, strlen(o->row->name));
    gguf_out_f64(out, "train.optimizer.weight_sum", o->weight_sum);
    gguf_out_f64(out, "train.optimizer.lr_max", o->lr_max);
}

void optimizer_declare(struct optimizer *o, struct gguf_out *out) {
    each_part(o, declare_part, out);
}

struct writing {
    struct gguf_out *out;
    float *piece;
};
enum { PIECE = 1 << 18 }; // floats: 1 MB through the host at a time
static bool write_part(struct optimizer *o, const struct param *p, int k, float *data, void *arg) {
    struct writing *w = arg;
    for (int64_t left = o->row->floats(o->model, p, k), n; left > 0; left -= n, data += n) {
        n = left < PIECE ? left : PIECE;
        o->model->backend->download(w->piece, data, (size_t)n * sizeof(float));
        gguf_out_data(w->out, w->piece, (size_t)n * sizeof(float));
    }
    return true;
}

void optimizer_write_data(struct optimizer *o, struct gguf_out *out) {
    struct writing w = {out, mem_array(PIECE, sizeof(float), "checkpoint buffer")};
    each_part(o, write_part, &w);
    mem_free(w.piece);
}

struct reading {
    const struct model_file *file;
    struct err *err;
};
static bool read_part(struct optimizer *o, const struct param *p, int k, float *data, void *arg) {
    struct reading *r = arg;
    char name[96];
    int64_t size[4];
    int dims = block_dims(o, p, k, size);
    block_name(name, o, p, k);
    const struct file_tensor *t = model_file_tensor(r->file, name);
    if (!t)
        return err_set(r->err, "%s has no tensor %s: it is a model, not a checkpoint to resume from", model_file_path(r->file), name);
    size_t bytes = (size_t)o->row->floats(o->model, p, k) * sizeof(float);
    if (t->dtype != DTYPE_F32 || t->n_dims != dims || t->size[0] != size[0] || (dims == 2 && t->size[1] != size[1]) || t->bytes != bytes)
        return err_set(r->err, "%s: expected %s as F32 [%lld, %lld], found %s with %zu bytes", model_file_path(r->file), name,
                       (long long)size[0], (long long)size[1], t->type_name, t->bytes);
    o->model->backend->upload(data, t->data, t->bytes);
    model_file_forget(r->file, t->data, t->bytes);
    return true;
}

bool optimizer_read(struct optimizer *o, const struct model_file *f, struct err *err) {
    struct span name;
    if (!meta_text(f, "train.optimizer", true, &name, err)) return false;
    if (name.n != strlen(o->row->name) || memcmp(name.p, o->row->name, name.n) != 0)
        return err_set(err, "%s was written by the optimizer %.*s, not %s, whose state is another", model_file_path(f), (int)name.n,
                       name.p, o->row->name);
    return meta_real(f, "train.optimizer.weight_sum", true, 0, 1e300, &o->weight_sum, err) &&
           meta_real(f, "train.optimizer.lr_max", true, 0, 1e300, &o->lr_max, err) &&
           each_part(o, read_part, &(struct reading){f, err});
}
