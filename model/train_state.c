// train_state.c: one micro-batch: forward, loss, backward.
//
// A micro-batch is worked off in groups of whole sequences, so few that the logits of a group stay within
// LOGITS_BYTES (one sequence at the least). Groups are invisible in the results:
//   - every sum over rows in a weight's gradient is one partial sum per sequence, added in order (backend.h, rule 3);
//   - a tied embedding gets two shares, as the head and as the embedding. Both are added sequence by sequence,
//     first the one, then the other, so that their order too is that of the sequences alone;
//   - losses are rounded to 2^-26 nats before they are added in double, which makes the sum exact (below 2^27 nats),
//     so the caller may add up micro-batches of any size and get the same bits.
// The same three make a batch independent of how the caller cuts it into micro-batches.
#include "model/internal.h"

#include <math.h>

static const size_t LOGITS_BYTES = 64u << 20;

struct train_state {
    struct model *m;
    int64_t max_rows, T, group_rows;
    void *block;                    // everything below that lies on the device
    struct acts acts;
    struct back back;
    struct tensor logits;           // [group_rows,V], then their gradient
    float *losses;                  // [group_rows]
    int32_t *ids, *targets, *pos, *lo, *hi; // [group_rows]
    int32_t *host_lo, *host_hi;     // [group_rows] host
    float *host_losses;             // [group_rows] host
};

static int64_t rows_in_group(const struct model_config *c, int64_t max_rows, int64_t T) {
    int64_t most = (int64_t)(LOGITS_BYTES / sizeof(float)) / (c->V * T) * T;
    if (most < T) most = T;
    return most < max_rows ? most : max_rows;
}

// Lays out all device memory of t; t->acts.layer must have its L entries.
static void place(struct train_state *t, const struct model_config *c, struct slab *s) {
    int64_t n = t->group_rows;
    acts_place(&t->acts, c, n, true, s);
    back_place(&t->back, c, n, s);
    t->logits = slab_tensor(s, DTYPE_F32, n, c->V);
    t->losses = slab_take(s, n, sizeof *t->losses);
    int32_t **ints[] = {&t->ids, &t->targets, &t->pos, &t->lo, &t->hi};
    for (size_t i = 0; i < COUNT_OF(ints); i++) *ints[i] = slab_take(s, n, sizeof(int32_t));
}

size_t train_state_bytes(const struct model_config *c, int64_t max_rows, int64_t T) {
    struct train_state t = {.group_rows = rows_in_group(c, max_rows, T)};
    struct slab s = {0};
    t.acts.layer = mem_array((size_t)c->L, sizeof *t.acts.layer, "activation table");
    place(&t, c, &s);
    size_t host = (size_t)c->L * sizeof *t.acts.layer + 3 * sizeof(int32_t) * (size_t)t.group_rows;
    mem_free(t.acts.layer);
    return s.too_big ? SIZE_MAX : s.used + host;
}

static bool check_backend(const struct backend *b, struct err *err) {
    static const enum op needs[] = {OP_EMBED, OP_EMBED_BACK, OP_RMSNORM, OP_RMSNORM_BACK, OP_MATMUL_DW, OP_ROPE,
                                    OP_ATTEND, OP_ATTEND_BACK, OP_GLU, OP_GLU_BACK, OP_CROSS_ENTROPY};
    for (size_t i = 0; i < COUNT_OF(needs); i++)
        if (!b->supports(needs[i], DTYPE_F32))
            return err_set(err, "the %s backend has no %s, which training needs", b->name, op_name(needs[i]));
    return true;
}

struct train_state *train_state_new(struct model *m, int64_t max_rows, int64_t T, struct err *err) {
    assert(m->trainable && T > 0 && max_rows > 0 && max_rows % T == 0);
    const struct model_config *c = &m->config;
    if (!check_backend(m->backend, err)) return NULL;
    struct train_state *t = mem_alloc(sizeof *t, "training state");
    *t = (struct train_state){.m = m, .max_rows = max_rows, .T = T, .group_rows = rows_in_group(c, max_rows, T)};
    t->acts.layer = mem_array((size_t)c->L, sizeof *t->acts.layer, "activation table");
    struct slab s = {0};
    place(t, c, &s);
    if (s.too_big) err_set(err, "activations of %lld rows do not fit in an address space", (long long)max_rows);
    else t->block = m->backend->alloc(s.used, "activations", err);
    if (!t->block) {
        train_state_free(t);
        return NULL;
    }
    s = (struct slab){.base = t->block};
    place(t, c, &s);
    size_t n = (size_t)t->group_rows;
    t->host_lo = mem_array(n, sizeof *t->host_lo, "row ranges");
    t->host_hi = mem_array(n, sizeof *t->host_hi, "row ranges");
    t->host_losses = mem_array(n, sizeof *t->host_losses, "losses");
    // Positions count within the sequence: only differences matter, so documents need no count of their own.
    for (size_t i = 0; i < n; i++) t->host_lo[i] = (int32_t)((int64_t)i % T);
    m->backend->upload(t->pos, t->host_lo, n * sizeof(int32_t));
    return t;
}

void train_state_free(struct train_state *t) {
    if (!t) return;
    if (t->block) t->m->backend->free(t->block);
    mem_free(t->acts.layer);
    mem_free(t->host_lo);
    mem_free(t->host_hi);
    mem_free(t->host_losses);
    mem_free(t);
}

void train_zero_grads(struct train_state *t) { t->m->backend->zero(t->m->grads_block, t->m->grads_bytes); }

// Rows [at, at + n) of the batch to the device; key ranges become relative to the group.
static void upload_group(struct train_state *t, const struct train_batch *b, int64_t at, int64_t n) {
    const struct backend *be = t->m->backend;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = at + i, sequence = row / t->T * t->T;
        assert(b->doc_start[row] >= sequence && b->doc_start[row] <= row);
        assert(b->ids[row] >= 0 && b->ids[row] < t->m->config.V && b->targets[row] < t->m->config.V);
        (void)sequence;
        t->host_lo[i] = (int32_t)(b->doc_start[row] - at);
        t->host_hi[i] = (int32_t)(i + 1);
    }
    size_t bytes = (size_t)n * sizeof(int32_t);
    be->upload(t->ids, b->ids + at, bytes);
    be->upload(t->targets, b->targets + at, bytes);
    be->upload(t->lo, t->host_lo, bytes);
    be->upload(t->hi, t->host_hi, bytes);
}

// From d loss/d logits (in t->logits) to all gradients.
static void backward_group(struct train_state *t, const struct pass *p) {
    const struct model *m = t->m;
    const struct backend *b = m->backend;
    struct tensor logits = tensor_first(t->logits, p->n);      // [n,V] gradient
    struct tensor dx = tensor_first(t->back.dx, p->n);         // [n,C]
    struct tensor dnorm = tensor_first(t->back.dnorm, p->n);   // [n,C]
    struct tensor out = tensor_first(t->acts.out, p->n);       // [n,C]
    struct tensor normed = tensor_first(t->acts.norm, p->n);   // [n,C] the head's input, once more below
    const struct param *norm = &m->params[m->out_norm], *head = &m->params[m->head], *embed = &m->params[m->embed];

    b->matmul_dx(&(struct matmul_dx_args){dnorm, logits, model_product_weight(m, m->head), 1, false, model_precision(m)});
    b->zero(dx.data, (size_t)dx.rows * dx.row_bytes); // rmsnorm_back adds
    b->rmsnorm_back(&(struct rmsnorm_back_args){dx, norm->grad, dnorm, out, norm->w, m->config.norm_eps, t->T});
    model_backward(m, p, &t->back, t->T); // leaves acts.norm alone: it makes norms again in buffers of its own
    for (int64_t s = 0; s < p->n; s += t->T) {
        b->matmul_dw(&(struct matmul_dw_args){head->grad, tensor_rows(logits, s, t->T), tensor_rows(normed, s, t->T),
                                              1, t->T, model_precision(m)});
        b->embed_back(&(struct embed_back_args){embed->grad, tensor_rows(dx, s, t->T), p->ids + s, m->config.m_emb});
    }
}

double train_loss(struct train_state *t, const struct train_batch *batch, float grad_scale, float *losses) {
    assert(batch->T == t->T && batch->rows > 0 && batch->rows % t->T == 0 && batch->rows <= t->max_rows);
    const struct model *m = t->m;
    const struct backend *b = m->backend;
    double sum = 0;
    for (int64_t at = 0; at < batch->rows; at += t->group_rows) {
        int64_t n = batch->rows - at < t->group_rows ? batch->rows - at : t->group_rows;
        struct pass p = {.n = n, .ids = t->ids, .pos = t->pos, .lo = t->lo, .hi = t->hi, .acts = &t->acts,
                         .precision = model_precision(m)};
        upload_group(t, batch, at, n);
        b->begin();
        struct tensor logits = tensor_first(t->logits, n);
        model_forward(m, &p);
        model_head(m, logits, tensor_first(t->acts.norm, n), tensor_first(t->acts.out, n), 1, p.precision);
        b->cross_entropy(
            &(struct cross_entropy_args){t->losses, logits, t->targets, 1 / m->config.logit_divisor, grad_scale});
        if (grad_scale != 0) backward_group(t, &p);
        b->end();
        b->download(t->host_losses, t->losses, (size_t)n * sizeof(float));
        for (int64_t i = 0; i < n; i++) {
            sum += nearbyint((double)t->host_losses[i] * 0x1p26) * 0x1p-26;
            if (losses) losses[at + i] = t->host_losses[i];
        }
    }
    return sum;
}
