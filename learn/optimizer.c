// optimizer: AdamW over a model's parameters, and the guard that decides whether a step is taken.
//
// The moments are two device blocks of f32 in the order of the parameter table, one float per weight. The update of
// one parameter is one backend op, so this file holds no arithmetic but the clip factor and the norm of norms: the
// squares are summed per parameter on the device and added here in double in table order, the same bits for any
// number of threads.
//
// The guard is plain statistics on the host, part of the checkpoint: see learn.h for its rule.
#include "learn/learn.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct optimizer {
    struct model *model;
    struct optimizer_options options;
    float *m, *v; // device: n_weights each
    double *sums; // device: one per parameter
    double *host_sums;
    size_t weights;
};

// Weights of the table in floats; false when the count does not fit.
static bool table_weights(const struct param *params, int n, size_t *weights) {
    *weights = 0;
    for (int i = 0; i < n; i++) {
        size_t each;
        if (!size_mul((size_t)params[i].rows, (size_t)params[i].cols, &each)) return false;
        if (!size_add(*weights, each, weights)) return false;
    }
    return true;
}

size_t optimizer_bytes(const struct model_config *c) {
    int n;
    struct param *table = config_params_table(c, &n);
    size_t weights, bytes;
    bool ok = table_weights(table, n, &weights) && size_mul(weights, 2 * sizeof(float), &bytes) &&
              size_add(bytes, (size_t)n * sizeof(double), &bytes);
    mem_free(table);
    return ok ? bytes : SIZE_MAX;
}

struct optimizer *optimizer_new(struct model *m, const struct optimizer_options *options,
                                struct err *err) {
    assert(m->trainable);
    size_t weights, bytes;
    if (!table_weights(m->params, m->n_params, &weights) ||
        !size_mul(weights, sizeof(float), &bytes)) {
        err_set(err, "the moments of this model do not fit into the address space");
        return NULL;
    }
    struct optimizer *o = mem_alloc(sizeof *o, "optimizer");
    o->model = m;
    o->options = *options;
    o->weights = weights;
    o->host_sums = mem_array((size_t)m->n_params, sizeof(double), "gradient norms");
    o->m = m->backend->alloc(bytes, "first moments", err);
    o->v = o->m ? m->backend->alloc(bytes, "second moments", err) : NULL;
    o->sums = o->v ? m->backend->alloc((size_t)m->n_params * sizeof(double), "gradient norms", err)
                   : NULL;
    if (o->sums) return o;
    optimizer_free(o);
    return NULL;
}

void optimizer_free(struct optimizer *o) {
    if (!o) return;
    const struct backend *b = o->model->backend;
    if (o->m) b->free(o->m);
    if (o->v) b->free(o->v);
    if (o->sums) b->free(o->sums);
    mem_free(o->host_sums);
    mem_free(o);
}

double optimizer_grad_norm(struct optimizer *o) {
    const struct model *m = o->model;
    for (int i = 0; i < m->n_params; i++)
        m->backend->sum_squares(
            &(struct sum_squares_args){.out = o->sums + i, .x = m->params[i].grad});
    m->backend->download(o->host_sums, o->sums, (size_t)m->n_params * sizeof(double));
    double sum = 0;
    for (int i = 0; i < m->n_params; i++) sum += o->host_sums[i];
    return sqrt(sum);
}

void optimizer_step(struct optimizer *o, double lr, double grad_norm, int64_t step) {
    assert(isfinite(grad_norm) && isfinite(lr) && step >= 1);
    const struct optimizer_options *opt = &o->options;
    double clip = opt->clip > 0 ? fmin(1, opt->clip / (grad_norm + 1e-6)) : 1;
    size_t at = 0;
    for (int i = 0; i < o->model->n_params; i++) {
        const struct param *p = &o->model->params[i];
        o->model->backend->adamw(&(struct adamw_args){
            .w = p->w,
            .g = p->grad,
            .m = tensor_f32(o->m + at, p->rows, p->cols),
            .v = tensor_f32(o->v + at, p->rows, p->cols),
            .copy = p->w16,
            .lr = (float)(lr * (double)p->lr_scale),
            .beta1 = (float)opt->beta1,
            .beta2 = (float)opt->beta2,
            .eps = (float)opt->eps,
            .weight_decay = p->decay ? (float)opt->weight_decay : 0,
            .grad_scale = (float)clip,
            .step = step,
        });
        at += (size_t)(p->rows * p->cols);
    }
    assert(at == o->weights);
}

// --- files: "adam.m.<param>" and "adam.v.<param>", f32, the shape of the parameter ---------------------------------

static const char *const moment_prefix[2] = {"adam.m.", "adam.v."};

static float *moment_block(const struct optimizer *o, int which) { return which ? o->v : o->m; }

// Norms are vectors in files, matrices have two sizes, as the weights themselves.
static int param_dims(const struct param *p, int64_t size[4]) {
    if (p->rows == 1) {
        size[0] = p->cols;
        return 1;
    }
    size[0] = p->rows;
    size[1] = p->cols;
    return 2;
}

static void moment_name(char name[80], int which, const struct param *p) {
    snprintf(name, 80, "%s%s", moment_prefix[which], p->name);
}

void optimizer_declare(const struct optimizer *o, struct gguf_out *out) {
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < o->model->n_params; i++) {
            char name[80];
            int64_t size[4] = {0};
            moment_name(name, which, &o->model->params[i]);
            int dims = param_dims(&o->model->params[i], size);
            gguf_out_tensor(out, name, DTYPE_F32, dims, size);
        }
}

void optimizer_write_data(const struct optimizer *o, struct gguf_out *out) {
    enum { PIECE = 1 << 18 }; // floats: 1 MB through the host at a time
    float *piece = mem_array(PIECE, sizeof(float), "checkpoint buffer");
    for (int which = 0; which < 2; which++) {
        size_t at = 0;
        for (int i = 0; i < o->model->n_params; i++) {
            size_t left = (size_t)(o->model->params[i].rows * o->model->params[i].cols);
            while (left > 0) {
                size_t n = left < PIECE ? left : PIECE;
                o->model->backend->download(piece, moment_block(o, which) + at, n * sizeof(float));
                gguf_out_data(out, piece, n * sizeof(float));
                at += n;
                left -= n;
            }
        }
    }
    mem_free(piece);
}

// Pages of the file that were copied need not stay resident. A hint that destroys nothing, whatever memory it is
// given.
static void release_pages(const void *data, size_t bytes) {
#ifdef MADV_PAGEOUT
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE),
              start = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (end > start) madvise((void *)start, end - start, MADV_PAGEOUT);
#else
    (void)data, (void)bytes;
#endif
}

bool optimizer_read(struct optimizer *o, const struct model_file *f, struct err *err) {
    for (int which = 0; which < 2; which++) {
        size_t at = 0;
        for (int i = 0; i < o->model->n_params; i++) {
            const struct param *p = &o->model->params[i];
            char name[80];
            moment_name(name, which, p);
            const struct file_tensor *t = model_file_tensor(f, name);
            if (!t)
                return err_set(
                    err, "%s has no tensor %s: it is a model, not a checkpoint to resume from",
                    model_file_path(f), name);
            size_t n = (size_t)(p->rows * p->cols);
            int64_t size[4] = {0};
            int dims = param_dims(p, size);
            if (t->dtype != DTYPE_F32 || t->n_dims != dims || t->size[0] != size[0] ||
                (dims == 2 && t->size[1] != size[1]) || t->bytes != n * sizeof(float))
                return err_set(err, "%s: expected %s as F32 [%lld, %lld], found %s with %zu bytes",
                               model_file_path(f), name, (long long)p->rows, (long long)p->cols,
                               t->type_name, t->bytes);
            o->model->backend->upload(moment_block(o, which) + at, t->data, t->bytes);
            release_pages(t->data, t->bytes);
            at += n;
        }
    }
    return true;
}

// --- guard ---------------------------------------------------------------------------------------------------------

enum { GUARD_LEAST = 32 };

// Whether x lies more than limit standard deviations above the mean of n values. Two passes: exact enough, and the
// same bits after a resume, which running sums would not be.
static bool far_above(const double *history, int64_t n, double x, double limit,
                      double floor_share) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; i++) mean += history[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) var += (history[i] - mean) * (history[i] - mean);
    double std = fmax(sqrt(var / (double)n), floor_share * fabs(mean));
    return x - mean > limit * std;
}

enum guard_verdict guard_judge(struct guard *g, double loss, double grad_norm) {
    assert(g->count >= 0 && g->limit >= 0);
    enum guard_verdict verdict = GUARD_KEEP;
    int64_t n = g->count < GUARD_WINDOW ? g->count : GUARD_WINDOW;
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        verdict = GUARD_NOT_FINITE;
    } else if (g->limit > 0 && n >= GUARD_LEAST) {
        if (far_above(g->loss, n, loss, g->limit, 0.01)) verdict = GUARD_LOSS;
        else if (far_above(g->norm, n, grad_norm, g->limit, 0.10)) verdict = GUARD_NORM;
    }
    if (verdict != GUARD_KEEP && verdict != GUARD_NOT_FINITE && g->in_a_row + 1 >= GUARD_PATIENCE) {
        g->count = 0;
        verdict = GUARD_KEEP;
    }
    if (verdict != GUARD_KEEP) {
        g->skipped++;
        g->in_a_row++;
        return verdict;
    }
    g->loss[g->count % GUARD_WINDOW] = loss;
    g->norm[g->count % GUARD_WINDOW] = grad_norm;
    g->count++;
    g->in_a_row = 0;
    return GUARD_KEEP;
}

const char *guard_name(enum guard_verdict v) {
    static const char *const names[] = {"kept", "not finite", "loss", "gradient norm"};
    static_assert(COUNT_OF(names) == GUARD_NORM + 1, "a name for every verdict");
    return names[v];
}
