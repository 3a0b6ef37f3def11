// forward.c: the forward pass, once, for training, for reading a prompt and for decoding, on every backend and
// family.
//
// Reads like the block in model.h. The three uses differ in two things only: where a row's keys and values lie
// (among the rows of the pass, or in a cache that they are first stored into), and whether each layer has its own
// activations (kept for backward.c) or all share one set. Nothing here allocates, and no row's result depends on
// the other rows of the pass but through attention (backend.h, rule 2), so cutting a text into passes changes no
// bit.
//
// Kept for backward, bytes per row and layer: 4 (2 C + 2 H D + 2 G D + H + 2 F). What is cheap to make again from
// that is not kept: outputs of norms and the product of gate and up.
#include "model/internal.h"

void acts_place(struct acts *a, const struct model_config *c, int64_t max_rows, bool kept, struct slab *s) {
    int64_t n = max_rows, q = c->H * c->D, kv = c->G * c->D;
    a->kept = kept;
    for (int64_t l = 0; l < (kept ? c->L : 1); l++) {
        struct layer_acts *y = &a->layer[l];
        y->x = slab_tensor(s, DTYPE_F32, n, c->C);
        y->q = slab_tensor(s, DTYPE_F32, n, q);
        y->k = slab_tensor(s, DTYPE_F32, n, kv);
        y->v = slab_tensor(s, DTYPE_F32, n, kv);
        y->lse = kept ? slab_take(s, n * c->H, sizeof(float)) : NULL;
        y->attended = slab_tensor(s, DTYPE_F32, n, q);
        y->mid = kept ? slab_tensor(s, DTYPE_F32, n, c->C) : y->x;
        y->gate = slab_tensor(s, DTYPE_F32, n, c->F);
        y->up = slab_tensor(s, DTYPE_F32, n, c->F);
    }
    a->out = kept ? slab_tensor(s, DTYPE_F32, n, c->C) : a->layer[0].x;
    a->norm = slab_tensor(s, DTYPE_F32, n, c->C);
    a->glu = kept ? slab_tensor(s, DTYPE_F32, n, c->F) : a->layer[0].gate;
}

// out = x + scale * branch w^T, where out may be x
static void add_to_stream(const struct model *m, struct tensor out, struct tensor x, struct tensor branch, int w) {
    const struct backend *b = m->backend;
    if (out.data != x.data) b->copy(out.data, x.data, (size_t)x.rows * x.row_bytes);
    b->matmul(&(struct matmul_args){out, branch, model_product_weight(m, w), m->config.m_res, true});
}

static void norm(const struct model *m, struct tensor out, struct tensor x, int weight) {
    m->backend->rmsnorm(&(struct rmsnorm_args){out, x, m->params[weight].w, m->config.norm_eps});
}

static void project(const struct model *m, struct tensor out, struct tensor x, int weight) {
    m->backend->matmul(&(struct matmul_args){out, x, model_product_weight(m, weight), 1, false});
}

static void rotate(const struct model *m, struct tensor x, const int32_t *pos) {
    const struct model_config *c = &m->config;
    m->backend->rope(&(struct rope_args){x, pos, m->rope_freq, c->D, c->D, c->family->pairs, false});
}

// One layer: y->x in, `out` the stream that leaves it.
static void forward_layer(const struct model *m, const struct pass *p, int64_t l, struct tensor out) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    struct tensor x = tensor_first(y->x, p->n);                // [n,C]
    struct tensor q = tensor_first(y->q, p->n);                // [n,H*D]
    struct tensor k = tensor_first(y->k, p->n);                // [n,G*D]
    struct tensor v = tensor_first(y->v, p->n);                // [n,G*D]
    struct tensor attended = tensor_first(y->attended, p->n);  // [n,H*D]
    struct tensor mid = tensor_first(y->mid, p->n);            // [n,C]
    struct tensor gate = tensor_first(y->gate, p->n);          // [n,F]
    struct tensor up = tensor_first(y->up, p->n);              // [n,F]
    struct tensor glu = tensor_first(p->acts->glu, p->n);      // [n,F]
    struct tensor normed = tensor_first(p->acts->norm, p->n);  // [n,C]

    // x += m_res * Wo attend(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x))
    norm(m, normed, x, w->attn_norm);
    project(m, q, normed, w->q);
    project(m, k, normed, w->k);
    project(m, v, normed, w->v);
    rotate(m, q, p->pos);
    rotate(m, k, p->pos);
    struct tensor keys = k, values = v;
    if (p->cache_k) {
        keys = p->cache_k[l];
        values = p->cache_v[l];
        b->store_rows(&(struct store_rows_args){keys, k, p->kv_rows});
        b->store_rows(&(struct store_rows_args){values, v, p->kv_rows});
    }
    b->attend(&(struct attend_args){attended, q, keys, values, p->lo, p->hi, y->lse, c->H, c->G, c->D, c->m_attn});
    add_to_stream(m, mid, x, attended, w->o);

    // x += m_res * Wdown (silu(Wgate norm(x)) * Wup norm(x))
    norm(m, normed, mid, w->ffn_norm);
    project(m, gate, normed, w->gate);
    project(m, up, normed, w->up);
    b->glu(&(struct glu_args){glu, gate, up, GLU_SILU});
    add_to_stream(m, out, mid, glu, w->down);
}

void model_forward(const struct model *m, const struct pass *p) {
    const struct model_config *c = &m->config;
    // x = m_emb * embed[id]
    struct tensor x = tensor_first(acts_layer(p->acts, 0)->x, p->n);
    m->backend->embed(&(struct embed_args){x, m->params[m->embed].w, p->ids, c->m_emb});
    for (int64_t l = 0; l < c->L; l++) {
        struct tensor next = l + 1 < c->L ? acts_layer(p->acts, l + 1)->x : p->acts->out;
        forward_layer(m, p, l, tensor_first(next, p->n));
    }
}

void model_head(const struct model *m, struct tensor logits, struct tensor normed, struct tensor x, float scale) {
    norm(m, normed, x, m->out_norm);
    m->backend->matmul(&(struct matmul_args){logits, normed, model_product_weight(m, m->head), scale, false});
}
