// backward.c: the mirror of forward.c, line by line from the bottom up.
//
// One buffer carries the gradient of the residual stream from the last layer down to the embedding; each branch
// ADDS its share to it at its norm. Gradients of weights are added by segments of rows (backend.h, rule 3). What
// forward did not keep is made again from what it did: outputs of norms and the product of gate and up.
//
// With experts, a row's gradient is brought into their order with the weight of the router in it, and all that follows are
// products of runs. The weight itself gets what its part of the branch is worth: with y = weight * silu(gate) * up, what
// comes back to y times y is weight * d loss/d weight, and that is all the router needs (backend.h, route_back); so what the
// experts gave is not kept.
//
// It mirrors the block of families that say `trains`; what others add, config_trains refuses.
#include "model/internal.h"

void back_place(struct back *b, const struct model_config *c, const struct acts *a, int64_t max_rows, struct slab *s) {
    int64_t n = max_rows, q = c->H * c->D, kv = c->G * c->D, through = c->E ? n * c->used : n;
    b->dx = slab_tensor(s, DTYPE_F32, n, c->C);
    b->norm = a->norm;
    b->dnorm = slab_tensor(s, DTYPE_F32, n, c->C);
    b->glu = a->glu;
    if (config_tensors(c) & HAS(q_norm)) {
        b->dq_raw = slab_tensor(s, DTYPE_F32, n, q);
        b->dk_raw = slab_tensor(s, DTYPE_F32, n, kv);
    }
    if (c->E > 0) {
        b->dglu = slab_tensor(s, DTYPE_F32, through, c->F);
        b->sorted = a->parts;
        b->droutes = slab_tensor(s, DTYPE_F32, n, c->E);
        b->other = slab_take(s, c->L * n, sizeof *b->other);
        b->balance = slab_tensor(s, DTYPE_F32, c->L * (a->segment ? n / a->segment : 1), c->E);
    }
    b->dattended = slab_tensor(s, DTYPE_F32, n, q);
    b->dq = slab_tensor(s, DTYPE_F32, n, q);
    b->dk = slab_tensor(s, DTYPE_F32, n, kv);
    b->dv = slab_tensor(s, DTYPE_F32, n, kv);
}

// The gradient of out = scale * x w^T: of the weights (added, but to fresh ones), then of x (added when `more`).
static void back_weight(const struct model *m, const struct back *s, int w, struct tensor dout, struct tensor x,
                        float scale, int64_t segment) {
    m->backend->matmul_dw(&(struct matmul_dw_args){m->params[w].grad, dout, x, scale, segment,
                                                    model_precision(m), s->fresh});
}

static void back_input(const struct model *m, int w, struct tensor dx, struct tensor dout, float scale, bool more) {
    m->backend->matmul_dx(&(struct matmul_dx_args){dx, dout, model_product_weight(m, w), scale, more,
                                                    model_precision(m)});
}

static void norm(const struct model *m, struct tensor out, struct tensor x, int weight) {
    m->backend->rmsnorm(&(struct rmsnorm_args){out, x, m->params[weight].w, m->config.norm_eps});
}

static void back_norm(const struct model *m, int weight, struct tensor dx, struct tensor dout, struct tensor x,
                      int64_t segment) {
    struct param *p = &m->params[weight];
    m->backend->rmsnorm_back(&(struct rmsnorm_back_args){dx, p->grad, dout, x, p->w, m->config.norm_eps, segment});
}

// The gradient of each head's norm, or of the norm of all heads as one, in `into`; dout itself where there is no norm.
static struct tensor back_norm_heads(const struct model *m, int weight, struct tensor into, struct tensor dout,
                                     struct tensor x, int64_t segment) {
    if (weight < 0) return dout;
    int64_t width = m->params[weight].cols, heads = dout.cols / width, n = dout.rows * heads;
    into = tensor_first(into, dout.rows);
    m->backend->zero(into.data, (size_t)into.rows * into.row_bytes); // rmsnorm_back adds
    back_norm(m, weight, tensor_f32(into.data, n, width), tensor_f32(dout.data, n, width), tensor_f32(x.data, n, width),
              segment * heads);
    return into;
}

static void rotate_back(const struct model *m, struct tensor dx, const int32_t *pos) {
    const struct model_config *c = &m->config;
    m->backend->rope(&(struct rope_args){dx, pos, m->rope_freq, c->D, c->D, c->family->pairs, true, 0});
}

// The gradient of out[q,:] = x[q,:] w[e]^T, rows in order of experts.
static void back_weight_experts(const struct model *m, const struct pass *p, const struct back *s, const int32_t *start,
                                int w, struct tensor dout, struct tensor x) {
    m->backend->matmul_experts_dw(&(struct matmul_experts_dw_args){m->params[w].grad, dout, x, start, m->config.E,
                                                                   acts_segments(p->acts, p->n), model_precision(m), s->fresh});
}

static void back_input_experts(const struct model *m, const struct pass *p, const int32_t *start, int w, struct tensor dx,
                               struct tensor dout, bool more) {
    m->backend->matmul_experts_dx(&(struct matmul_experts_dx_args){dx, dout, m->params[w].experts, start, m->config.E,
                                                                   acts_segments(p->acts, p->n), more, model_precision(m)});
}

// The gradient of a branch out of that of what it was added to: dx itself, or in `room` what was not dropped.
static struct tensor back_drop(const struct model *m, const struct pass *p, int64_t l, enum drop_place what,
                               struct tensor room, struct tensor dx) {
    const struct dropout drop = pass_drop(p, l, what);
    if (drop.below == 0) return dx;
    m->backend->dropout(&(struct dropout_args){room, {0}, dx, 1, drop});
    return room;
}

// The rows of balance that are layer l's.
static struct tensor balance_of(const struct back *s, int64_t l) {
    if (s->balances == 0) return (struct tensor){0};
    return tensor_rows(s->balance, l * s->balances, s->balances);
}

// out = mid + m_res * sum of weight * Wdown[e] (silu(gate) * up), gate = Wgate[e] norm(mid), up = Wup[e] norm(mid), over the
// chosen experts e. dx: d out on entry, d mid on return. gate and up are overwritten by their gradients.
static void back_experts(const struct model *m, const struct pass *p, const struct back *s, int64_t l, int64_t segment) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    int64_t through = p->n * c->used;
    struct tensor dx = tensor_first(s->dx, p->n);           // [n,C]
    struct tensor mid = tensor_first(y->mid, p->n);         // [n,C]
    struct tensor gate = tensor_first(y->gate, through);    // [n*used,F]
    struct tensor up = tensor_first(y->up, through);        // [n*used,F]
    struct tensor glu = tensor_first(s->glu, through);      // [n*used,F]
    struct tensor dglu = tensor_first(s->dglu, through);    // [n*used,F]
    struct tensor sorted = tensor_first(s->sorted, through); // [n*used,C]
    struct tensor routes = tensor_first(y->routes, p->n);   // [n,E]
    struct tensor droutes = tensor_first(s->droutes, p->n); // [n,E]
    struct tensor normed = tensor_first(s->norm, p->n);     // [n,C]
    struct tensor dnorm = tensor_first(s->dnorm, p->n);     // [n,C]
    struct tensor dbranch = back_drop(m, p, l, DROP_FEED_FORWARD, dnorm, dx); // [n,C]

    b->glu(&(struct glu_args){glu, gate, up, c->family->act});
    b->mix_back(&(struct mix_back_args){sorted, dbranch, y->weight, c->used, y->place, c->m_res});
    back_weight_experts(m, p, s, y->start, w->down_exps, sorted, glu);
    back_input_experts(m, p, y->start, w->down_exps, dglu, sorted, false);
    b->route_back(&(struct route_back_args){droutes, routes, glu, dglu, balance_of(s, l), y->chosen, y->place, y->weight,
                                            s->other + l * p->n, c->used, c->family->renormalize, s->z_loss});
    b->glu_back(&(struct glu_back_args){gate, up, dglu, gate, up, c->family->act});
    norm(m, normed, mid, w->ffn_norm);
    b->embed(&(struct embed_args){sorted, normed, y->row, 1});
    back_weight_experts(m, p, s, y->start, w->gate_exps, gate, sorted);
    back_weight_experts(m, p, s, y->start, w->up_exps, up, sorted);
    back_input_experts(m, p, y->start, w->gate_exps, sorted, gate, false);
    back_input_experts(m, p, y->start, w->up_exps, sorted, up, true);
    b->mix(&(struct mix_args){dnorm, sorted, NULL, c->used, y->place});
    b->matmul_dw(&(struct matmul_dw_args){m->params[w->router].grad, droutes, normed, 1, segment, PRECISION_F32, s->fresh});
    b->matmul_dx(&(struct matmul_dx_args){dnorm, droutes, m->params[w->router].w, 1, true, PRECISION_F32});
    back_norm(m, w->ffn_norm, dx, dnorm, mid, segment);
}

// out = mid + m_res * Wdown (silu(gate) * up), gate = Wgate norm(mid), up = Wup norm(mid).
// dx: d out on entry, d mid on return. gate and up are overwritten by their gradients.
static void back_feed_forward(const struct model *m, const struct pass *p, const struct back *s, int64_t l,
                              int64_t segment) {
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    float m_res = m->config.m_res;
    struct tensor dx = tensor_first(s->dx, p->n);       // [n,C]
    struct tensor mid = tensor_first(y->mid, p->n);     // [n,C]
    struct tensor gate = tensor_first(y->gate, p->n);   // [n,F]
    struct tensor up = tensor_first(y->up, p->n);       // [n,F]
    struct tensor glu = tensor_first(s->glu, p->n);     // [n,F]
    struct tensor normed = tensor_first(s->norm, p->n); // [n,C]
    struct tensor dnorm = tensor_first(s->dnorm, p->n); // [n,C]
    struct tensor dbranch = back_drop(m, p, l, DROP_FEED_FORWARD, dnorm, dx); // [n,C]

    m->backend->glu(&(struct glu_args){glu, gate, up, m->config.family->act});
    back_weight(m, s, w->down, dbranch, glu, m_res, segment);
    back_input(m, w->down, glu, dbranch, m_res, false); // glu is now its own gradient
    m->backend->glu_back(&(struct glu_back_args){gate, up, glu, gate, up, m->config.family->act});
    norm(m, normed, mid, w->ffn_norm);
    back_weight(m, s, w->gate, gate, normed, 1, segment);
    back_weight(m, s, w->up, up, normed, 1, segment);
    back_input(m, w->gate, dnorm, gate, 1, false);
    back_input(m, w->up, dnorm, up, 1, true);
    back_norm(m, w->ffn_norm, dx, dnorm, mid, segment);
}

// mid = x + m_res * Wo attend(q, k, v), q = rope(Wq norm(x)), k = rope(Wk norm(x)), v = Wv norm(x).
// dx: d mid on entry, d x on return.
static void back_attention(const struct model *m, const struct pass *p, const struct back *s, int64_t l,
                           int64_t segment) {
    const struct model_config *c = &m->config;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    struct tensor dx = tensor_first(s->dx, p->n);               // [n,C]
    struct tensor x = tensor_first(y->x, p->n);                 // [n,C]
    struct tensor q = tensor_first(y->q, p->n);                 // [n,H*D]
    struct tensor k = tensor_first(y->k, p->n);                 // [n,G*D]
    struct tensor v = tensor_first(y->v, p->n);                 // [n,G*D]
    struct tensor attended = tensor_first(y->attended, p->n);   // [n,H*D]
    struct tensor dattended = tensor_first(s->dattended, p->n); // [n,H*D]
    struct tensor dq = tensor_first(s->dq, p->n);               // [n,H*D]
    struct tensor dk = tensor_first(s->dk, p->n);               // [n,G*D]
    struct tensor dv = tensor_first(s->dv, p->n);               // [n,G*D]
    struct tensor normed = tensor_first(s->norm, p->n);         // [n,C]
    struct tensor dnorm = tensor_first(s->dnorm, p->n);         // [n,C]
    struct tensor dbranch = back_drop(m, p, l, DROP_ATTENTION, dnorm, dx); // [n,C]

    back_weight(m, s, w->o, dbranch, attended, c->m_res, segment);
    back_input(m, w->o, dattended, dbranch, c->m_res, false);
    m->backend->attend_back(&(struct attend_back_args){dq, dk, dv, dattended, attended, q, k, v, p->lo, p->hi, y->lse,
                                                       c->H, c->G, c->D, c->m_attn, segment, model_precision(m),
                                                       pass_drop(p, l, DROP_PROBABILITIES)});
    rotate_back(m, dq, p->pos);
    rotate_back(m, dk, p->pos);
    dq = back_norm_heads(m, w->q_norm, s->dq_raw, dq, y->q_raw, segment);
    dk = back_norm_heads(m, w->k_norm, s->dk_raw, dk, y->k_raw, segment);
    norm(m, normed, x, w->attn_norm);
    back_weight(m, s, w->q, dq, normed, 1, segment);
    back_weight(m, s, w->k, dk, normed, 1, segment);
    back_weight(m, s, w->v, dv, normed, 1, segment);
    back_input(m, w->q, dnorm, dq, 1, false);
    back_input(m, w->k, dnorm, dk, 1, true);
    back_input(m, w->v, dnorm, dv, 1, true);
    back_norm(m, w->attn_norm, dx, dnorm, x, segment);
}

void model_backward(const struct model *m, const struct pass *p, struct back *b, int64_t segment, int64_t lo, int64_t hi) {
    assert(p->acts->kept && !p->cache_k && p->n % segment == 0 && lo >= 0 && lo < hi && hi <= m->config.L);
    for (int64_t l = hi - 1; l >= lo; l--) {
        model_forward_again(m, p, l);
        if (m->layers[l].router >= 0) back_experts(m, p, b, l, segment);
        else back_feed_forward(m, p, b, l, segment);
        back_attention(m, p, b, l, segment);
    }
    if (lo > 0) return;
    const struct dropout drop = pass_drop(p, 0, DROP_EMBEDDING);
    struct tensor dx = tensor_first(b->dx, p->n); // [n,C]
    if (drop.below > 0) m->backend->dropout(&(struct dropout_args){dx, {0}, dx, 1, drop});
}
