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
// that is not kept: outputs of norms and the product of gate and up. Where memory is short, more is made again: gate and
// up, 8 F bytes for 4 C F operations, then all of a layer but x, the other 4 (C + 2 H D + 2 G D + H) bytes for
// 4 C (H D + G D) operations and attention. The first is C/2 operations a byte, the second as many for short sequences
// and more for long ones, so it comes last: 12 layers of 768 in 63% of the bytes took 1.06 of the time with gate and up of
// 11, 1.11 with all of 6 (1024 tokens; 1.04 and 1.14 at 4096; bf16 with AMX, two-core Xeon, November 2026). Korthikanti et al. 2022 keep gate and up
// and give up the scores of attention, which are never kept here.
//
// Families differ by tensors that are there or not (an index of -1) and by few switches; families that do not train
// add what is never kept, in buffers that all layers share.
#include "model/internal.h"

void acts_place(struct acts *a, const struct model_config *c, int64_t max_rows, bool kept, struct slab *s) {
    int64_t n = max_rows, q = c->H * c->D, kv = c->G * c->D, through = c->E ? n * c->used : n;
    a->kept = kept;
    int64_t L = kept ? c->L : 1;
    assert(a->again.wholes <= a->again.halves && a->again.halves < L);
    for (int64_t l = L - 1; l >= 0; l--) {
        struct layer_acts *y = &a->layer[l];
        if (l + 1 < L) *y = y[1]; // what is not kept
        y->x = slab_tensor(s, DTYPE_F32, n, c->C);
        if (c->E > 0) { // always kept: who is chosen cannot come out otherwise the second time
            y->routes = slab_tensor(s, DTYPE_F32, n, c->E);
            y->weight = slab_take(s, through, sizeof *y->weight);
            int32_t **lists[] = {&y->chosen, &y->place, &y->row};
            for (size_t i = 0; i < COUNT_OF(lists); i++) *lists[i] = slab_take(s, through, sizeof(int32_t));
            y->start = slab_take(s, c->E * (a->segment ? n / a->segment : 1) + 1, sizeof *y->start);
        }
        if (l >= a->again.halves) {
            y->gate = slab_tensor(s, DTYPE_F32, through, c->F);
            y->up = slab_tensor(s, DTYPE_F32, through, c->F);
        }
        if (l < a->again.wholes) continue;
        y->q = slab_tensor(s, DTYPE_F32, n, q);
        y->k = slab_tensor(s, DTYPE_F32, n, kv);
        y->v = slab_tensor(s, DTYPE_F32, n, kv);
        bool normed = kept && config_tensors(c) & HAS(q_norm);
        y->q_raw = normed ? slab_tensor(s, DTYPE_F32, n, q) : y->q;
        y->k_raw = normed ? slab_tensor(s, DTYPE_F32, n, kv) : y->k;
        y->lse = kept || config_tensors(c) & HAS(sinks) ? slab_take(s, n * c->H, sizeof(float)) : NULL;
        y->attended = slab_tensor(s, DTYPE_F32, n, q);
        y->mid = kept ? slab_tensor(s, DTYPE_F32, n, c->C) : y->x;
    }
    a->out = kept ? slab_tensor(s, DTYPE_F32, n, c->C) : a->layer[0].x;
    a->norm = slab_tensor(s, DTYPE_F32, n, c->C);
    a->glu = kept ? slab_tensor(s, DTYPE_F32, through, c->F) : a->layer[0].gate;
    if (c->parallel) a->side = slab_tensor(s, DTYPE_F32, n, c->C);
    if (c->E == 0) return;
    if (c->FS > 0) {
        a->shared_gate = slab_tensor(s, DTYPE_F32, n, c->FS);
        a->shared_up = slab_tensor(s, DTYPE_F32, n, c->FS);
        a->shared = slab_tensor(s, DTYPE_F32, n, c->C);
        a->share = slab_tensor(s, DTYPE_F32, n, 1);
    }
    if (config_tensors(c) & HAS(down_exps_bias))
        a->expert_bias = slab_tensor(s, DTYPE_F32, through, c->F > c->C ? c->F : c->C);
    a->expert = slab_take(s, through, sizeof *a->expert);
    a->parts = slab_tensor(s, DTYPE_F32, through, c->C);
}

static void add_bias(const struct model *m, struct tensor x, int bias, float scale) {
    if (bias >= 0) m->backend->bias(&(struct bias_args){x, m->params[bias].w, scale});
}

// norm(x) into `into`; x itself where the family has no such norm.
static struct tensor norm(const struct model *m, struct tensor into, struct tensor x, int weight, int bias) {
    const struct backend *b = m->backend;
    if (weight < 0 && !m->config.family->bare_norm) return x;
    struct tensor w = weight < 0 ? (struct tensor){0} : m->params[weight].w;
    struct tensor shift = bias < 0 ? (struct tensor){0} : m->params[bias].w;
    if (m->config.family->layer_norm) b->layernorm(&(struct layernorm_args){into, x, w, shift, m->config.norm_eps});
    else b->rmsnorm(&(struct rmsnorm_args){into, x, w, m->config.norm_eps});
    return into;
}

// Each head of x by itself, or all of them as one, whatever the norm's width says.
static void norm_heads(const struct model *m, struct tensor into, struct tensor x, int weight) {
    if (weight < 0) return;
    int64_t width = m->params[weight].cols, rows = x.rows * (x.cols / width);
    assert(x.row_bytes == (size_t)x.cols * sizeof(float) && x.cols % width == 0);
    m->backend->rmsnorm(&(struct rmsnorm_args){tensor_f32(into.data, rows, width), tensor_f32(x.data, rows, width),
                                               m->params[weight].w, m->config.norm_eps});
}

static void project(const struct model *m, const struct pass *p, struct tensor out, struct tensor x, int weight,
                    int bias) {
    m->backend->matmul(&(struct matmul_args){out, x, model_product_weight(m, weight), 1, false, p->precision});
    add_bias(m, out, bias, 1);
}

// What enters the products of a branch: x, whose rmsnorm they make on their way; any other norm is made here.
struct entry {
    struct tensor x, norm, normed; // norm absent: x is it
    bool keep;                     // normed is wanted
};
static struct entry enter(const struct model *m, const struct pass *p, struct tensor x, int weight, int bias, bool keep) {
    struct tensor room = tensor_first(p->acts->norm, p->n); // [n,C]
    struct entry e = {.x = x, .normed = room, .keep = keep || p->observer};
    if (weight >= 0 && !m->config.family->layer_norm) e.norm = m->params[weight].w;
    else e.x = norm(m, room, x, weight, bias);
    return e;
}
static struct tensor entered(const struct entry *e) { return tensor_present(&e->norm) ? e->normed : e->x; }

static void see(const struct pass *p, int weight, struct tensor x) {
    if (p->observer && weight >= 0) p->observer->see(p->observer->arg, weight, x, NULL, 0);
}

static void see_experts(const struct pass *p, int weight, struct tensor x, const int32_t *chosen, int64_t n) {
    if (p->observer) p->observer->see(p->observer->arg, weight, x, chosen, n);
}

static void rotate(const struct model *m, const struct pass *p, int64_t l, struct tensor x) {
    const struct model_config *c = &m->config;
    bool stretched = config_is_stretched(c, l);
    if (config_rotated(c) == 0 || config_is_bare(c, l)) return;
    const float *freq = config_is_local(c, l) ? m->rope_freq_local : m->rope_freq;
    if (p->rope_freq && stretched) freq = p->rope_freq;
    m->backend->rope(&(struct rope_args){
        .x = x, .pos = p->pos, .freq = freq, .head_size = c->D, .rotated = config_rotated(c), .pairs = c->family->pairs,
        .scale = stretched ? c->rope_magnitude : 0});
}

static void clamp(const struct model *m, struct tensor x) {
    if (m->config.clamp > 0) m->backend->clamp(&(struct clamp_args){x, m->config.clamp});
}

// Where both branches read the stream that enters the layer, the input of the feed-forward is made before attention
// changes it: by a norm of its own (gptneox), or the one of attention.
static void keep_side(const struct model *m, const struct pass *p, const struct layer *w, struct tensor x,
                      struct tensor normed) {
    if (!m->config.parallel) return;
    struct tensor side = tensor_first(p->acts->side, p->n);
    if (w->ffn_norm >= 0) norm(m, side, x, w->ffn_norm, w->ffn_norm_bias);
    else m->backend->copy(side.data, normed.data, (size_t)p->n * side.row_bytes);
}

// out = x + m_res * branch, where branch may be normed before, in place, and a part of it dropped; out may be x.
static void add_branch(const struct model *m, struct tensor out, struct tensor x, struct tensor branch, int post,
                       struct dropout drop) {
    branch = norm(m, branch, branch, post, -1);
    if (drop.below > 0) m->backend->dropout(&(struct dropout_args){out, x, branch, m->config.m_res, drop});
    else m->backend->add(&(struct add_args){out, x, branch, m->config.m_res});
}

// out = x + m_res * (branch w^T + bias), where out may be x, but when something is dropped. Some families norm the product
// first.
static void add_to_stream(const struct model *m, const struct pass *p, struct tensor out, struct tensor x,
                          struct tensor branch, int w, int bias, int post, struct dropout drop) {
    const struct backend *b = m->backend;
    if (post >= 0 || drop.below > 0) {
        struct tensor room = drop.below > 0 ? out : tensor_first(p->acts->norm, p->n); // [n,C]
        assert(room.data != x.data);
        project(m, p, room, branch, w, bias);
        add_branch(m, out, x, room, post, drop);
        return;
    }
    if (out.data != x.data) b->copy(out.data, x.data, (size_t)x.rows * x.row_bytes);
    b->matmul(&(struct matmul_args){out, branch, model_product_weight(m, w), m->config.m_res, true,
                                    p->precision});
    add_bias(m, out, bias, m->config.m_res);
}

// What each row mixes from the values it sees, into y->attended. A run's keys enter the cache just before its rows attend.
static void attend(const struct model *m, const struct pass *p, int64_t l) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct layer_acts *y = acts_layer(p->acts, l);
    const int32_t *lo = config_is_local(c, l) ? p->lo_local : p->lo;
    if (p->beside_k) {
        b->copy(p->beside_k[l].data, y->k.data, (size_t)p->n * y->k.row_bytes);
        b->copy(p->beside_v[l].data, y->v.data, (size_t)p->n * y->v.row_bytes);
    }
    const int64_t *run = p->runs ? p->runs : &p->n;
    for (int64_t at = 0; at < p->n; at += *run++) {
        struct tensor keys = tensor_rows(y->k, at, *run), values = tensor_rows(y->v, at, *run);
        if (p->cache_k) {
            b->store_rows(&(struct store_rows_args){p->cache_k[l], keys, p->kv_rows + at, CACHE_KEYS, c->D});
            b->store_rows(&(struct store_rows_args){p->cache_v[l], values, p->kv_rows + at, CACHE_VALUES, c->D});
            keys = p->cache_k[l];
            values = p->cache_v[l];
        }
        b->attend(&(struct attend_args){tensor_rows(y->attended, at, *run), tensor_rows(y->q, at, *run), keys, values, lo + at,
                                        p->hi + at, y->lse ? y->lse + at * c->H : NULL, c->H, c->G, c->D, c->m_attn,
                                        c->score_cap, p->precision, pass_drop(p, l, DROP_PROBABILITIES)});
    }
}

// x += m_res * Wo attend(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x))
static void forward_attention(const struct model *m, const struct pass *p, int64_t l) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    struct tensor x = tensor_first(y->x, p->n);                // [n,C]
    struct tensor q = tensor_first(y->q, p->n);                // [n,H*D]
    struct tensor k = tensor_first(y->k, p->n);                // [n,G*D]
    struct tensor v = tensor_first(y->v, p->n);                // [n,G*D]
    struct tensor q_raw = tensor_first(y->q_raw, p->n);        // [n,H*D]
    struct tensor k_raw = tensor_first(y->k_raw, p->n);        // [n,G*D]
    struct tensor attended = tensor_first(y->attended, p->n);  // [n,H*D]
    struct tensor mid = tensor_first(y->mid, p->n);            // [n,C]

    const struct entry e = enter(m, p, x, w->attn_norm, w->attn_norm_bias, c->parallel);
    b->project(&(struct project_args){
        .x = e.x, .norm = e.norm, .normed = e.normed, .eps = c->norm_eps, .precision = p->precision, .keep = e.keep,
        .to = {{q_raw, model_product_weight(m, w->q)}, {k_raw, model_product_weight(m, w->k)}, {v, model_product_weight(m, w->v)}},
        .count = 3});
    keep_side(m, p, w, x, entered(&e));
    see(p, w->q, entered(&e));
    see(p, w->k, entered(&e));
    see(p, w->v, entered(&e));
    add_bias(m, q_raw, w->q_bias, 1);
    add_bias(m, k_raw, w->k_bias, 1);
    add_bias(m, v, w->v_bias, 1);
    norm_heads(m, q, q_raw, w->q_norm);
    norm_heads(m, k, k_raw, w->k_norm);
    clamp(m, q), clamp(m, k), clamp(m, v);
    rotate(m, p, l, q);
    rotate(m, p, l, k);
    if (p->q_scale) b->mix(&(struct mix_args){q, q, p->q_scale, 1, NULL});
    attend(m, p, l);
    see(p, w->o, attended);
    if (w->sinks >= 0) b->sink(&(struct sink_args){attended, m->params[w->sinks].w, y->lse});
    add_to_stream(m, p, mid, x, attended, w->o, w->o_bias, w->attn_post, pass_drop(p, l, DROP_ATTENTION));
}

// The shared expert of every row, in acts->shared, weighed by its own gate where it has one.
static void forward_shared(const struct model *m, const struct pass *p, const struct layer *w, struct tensor normed) {
    const struct backend *b = m->backend;
    struct tensor gate = tensor_first(p->acts->shared_gate, p->n); // [n,FS]
    struct tensor up = tensor_first(p->acts->shared_up, p->n);     // [n,FS]
    struct tensor out = tensor_first(p->acts->shared, p->n);       // [n,C]
    struct tensor share = tensor_first(p->acts->share, p->n);      // [n,1]
    see(p, w->gate_shared, normed);
    see(p, w->up_shared, normed);
    project(m, p, gate, normed, w->gate_shared, -1);
    project(m, p, up, normed, w->up_shared, -1);
    b->glu(&(struct glu_args){gate, gate, up, m->config.family->act});
    see(p, w->down_shared, gate);
    project(m, p, out, gate, w->down_shared, -1);
    if (w->shared_route < 0) return;
    see(p, w->shared_route, normed);
    project(m, p, share, normed, w->shared_route, -1);
    b->glu(&(struct glu_args){share, share, {0}, GLU_SIGMOID});
    b->mix(&(struct mix_args){out, out, share.data, 1, NULL});
}

// out[q,:] = the product of row q, which lies in order of experts, with its expert + the bias of that expert.
static void project_experts(const struct model *m, const struct pass *p, const struct layer_acts *y, struct tensor out,
                            struct tensor x, int weight, int bias) {
    const struct backend *b = m->backend;
    see_experts(p, weight, x, p->acts->expert, x.rows);
    b->matmul_experts(&(struct matmul_experts_args){out, x, m->params[weight].experts, y->start, m->config.E,
                                                    acts_segments(p->acts, p->n), p->precision});
    if (bias < 0) return;
    struct tensor rows = tensor_f32(p->acts->expert_bias.data, out.rows, out.cols);
    b->embed(&(struct embed_args){rows, m->params[bias].w, p->acts->expert, 1});
    b->add(&(struct add_args){out, out, rows, 1});
}

// Which experts each row goes through. The router's product is never rounded: a choice may hang on its last bit.
static void route(const struct model *m, const struct pass *p, const struct layer *w, const struct layer_acts *y,
                  struct tensor normed) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    struct tensor routes = tensor_first(y->routes, p->n); // [n,E]
    see(p, w->router, normed);
    b->matmul(&(struct matmul_args){routes, normed, m->params[w->router].w, 1, false, PRECISION_F32});
    add_bias(m, routes, w->router_bias, 1);
    b->route(&(struct route_args){routes, y->chosen, y->weight, c->used, c->family->renormalize});
    b->group(&(struct group_args){y->chosen, p->n, c->used, c->E, p->n / acts_segments(p->acts, p->n), y->place, y->row,
                                  p->acts->expert, y->start});
}

// out = mid + m_res * sum of the chosen experts, each weighed by the router, and of the shared one.
static void forward_experts(const struct model *m, const struct pass *p, int64_t l, struct tensor out,
                            struct tensor mid, struct tensor normed) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    const struct acts *a = p->acts;
    struct tensor gate = tensor_first(y->gate, p->n * c->used);   // [n*used,F]
    struct tensor up = tensor_first(y->up, p->n * c->used);       // [n*used,F]
    struct tensor glu = tensor_first(a->glu, p->n * c->used);     // [n*used,F]
    struct tensor parts = tensor_first(a->parts, p->n * c->used); // [n*used,C]
    struct tensor room = tensor_first(a->norm, p->n);             // [n,C]

    if (tensor_present(&out)) route(m, p, w, y, normed); // else that is kept
    b->embed(&(struct embed_args){parts, normed, y->row, 1}); // rows in order of experts
    project_experts(m, p, y, gate, parts, w->gate_exps, w->gate_exps_bias);
    project_experts(m, p, y, up, parts, w->up_exps, w->up_exps_bias);
    if (!tensor_present(&out)) return;
    b->glu(&(struct glu_args){glu, gate, up, c->family->act});
    project_experts(m, p, y, parts, glu, w->down_exps, w->down_exps_bias);
    if (c->FS > 0) forward_shared(m, p, w, normed);
    b->mix(&(struct mix_args){room, parts, y->weight, c->used, y->place});
    if (c->FS > 0) b->add(&(struct add_args){room, room, tensor_first(a->shared, p->n), 1});
    add_branch(m, out, mid, room, w->ffn_post, pass_drop(p, l, DROP_FEED_FORWARD));
}

// x += m_res * Wdown (silu(Wgate norm(x)) * Wup norm(x)), from y->mid to `out`, the stream that leaves the layer. Without
// an `out` only y->gate and y->up are made.
static void forward_feed_forward(const struct model *m, const struct pass *p, int64_t l, struct tensor out) {
    const struct backend *b = m->backend;
    const struct layer *w = &m->layers[l];
    const struct layer_acts *y = acts_layer(p->acts, l);
    struct tensor mid = tensor_first(y->mid, p->n);         // [n,C]
    struct tensor gate = tensor_first(y->gate, p->n);       // [n,F]
    struct tensor up = tensor_first(y->up, p->n);           // [n,F]
    struct tensor room = tensor_first(p->acts->norm, p->n); // [n,C]
    const struct dropout drop = pass_drop(p, l, DROP_FEED_FORWARD);

    if (w->router >= 0) {
        forward_experts(m, p, l, out, mid, m->config.parallel ? tensor_first(p->acts->side, p->n)
                                                              : norm(m, room, mid, w->ffn_norm, w->ffn_norm_bias));
        return;
    }
    const struct entry e = m->config.parallel ? (struct entry){.x = tensor_first(p->acts->side, p->n), .keep = p->observer}
                                              : enter(m, p, mid, w->ffn_norm, w->ffn_norm_bias, false);
    if (!tensor_present(&out)) {
        b->project(&(struct project_args){
            .x = e.x, .norm = e.norm, .normed = e.normed, .eps = m->config.norm_eps, .precision = p->precision,
            .to = {{up, model_product_weight(m, w->up)}, {gate, model_product_weight(m, w->gate)}}, .count = 2});
        return;
    }
    struct feed_forward_args a = {
        .x = e.x, .norm = e.norm, .normed = e.normed, .eps = m->config.norm_eps, .kind = m->config.family->act,
        .up = model_product_weight(m, w->up), .gates = gate, .ups = up, .product = tensor_first(p->acts->glu, p->n),
        .precision = p->precision, .keep = p->acts->kept || e.keep};
    if (w->gate >= 0) a.gate = model_product_weight(m, w->gate);
    if (w->up_bias >= 0) a.up_bias = m->params[w->up_bias].w;
    if (p->observer) { // which is shown the product before down reads it
        b->feed_forward(&a);
        see(p, w->up, entered(&e));
        see(p, w->gate, entered(&e));
        see(p, w->down, a.product);
        add_to_stream(m, p, out, mid, a.product, w->down, w->down_bias, w->ffn_post, drop);
        return;
    }
    a.down = model_product_weight(m, w->down);
    const bool apart = w->ffn_post >= 0 || drop.below > 0;
    if (drop.below > 0) room = out;
    assert(!apart || room.data != mid.data);
    a.out = apart ? room : out;
    a.scale = apart ? 1 : m->config.m_res;
    a.accumulate = !apart;
    if (a.accumulate && out.data != mid.data) b->copy(out.data, mid.data, (size_t)p->n * mid.row_bytes);
    b->feed_forward(&a);
    add_bias(m, a.out, w->down_bias, a.scale);
    if (apart) add_branch(m, out, mid, room, w->ffn_post, drop);
}

void model_forward(const struct model *m, const struct pass *p) {
    const struct model_config *c = &m->config;
    const struct backend *b = m->backend;
    const struct dropout drop = pass_drop(p, 0, DROP_EMBEDDING);
    // x = m_emb * embed[id] (+ positions[pos])
    struct tensor x = tensor_first(acts_layer(p->acts, 0)->x, p->n);
    b->embed(&(struct embed_args){x, m->params[m->embed].w, p->ids, c->m_emb});
    if (m->positions >= 0) {
        struct tensor room = tensor_first(p->acts->norm, p->n);
        b->embed(&(struct embed_args){room, m->params[m->positions].w, p->pos, 1});
        b->add(&(struct add_args){x, x, room, 1});
    }
    if (drop.below > 0) b->dropout(&(struct dropout_args){x, {0}, x, 1, drop});
    for (int64_t l = 0; l < c->L; l++) {
        struct tensor next = l + 1 < c->L ? acts_layer(p->acts, l + 1)->x : p->acts->out;
        forward_attention(m, p, l);
        forward_feed_forward(m, p, l, tensor_first(next, p->n));
    }
}

void model_forward_again(const struct model *m, const struct pass *p, int64_t l) {
    if (l < p->acts->again.wholes) forward_attention(m, p, l);
    if (l < p->acts->again.halves) forward_feed_forward(m, p, l, (struct tensor){0});
}

void model_head(const struct model *m, struct tensor logits, struct tensor room, struct tensor x, float scale,
                enum precision precision) {
    const struct backend *b = m->backend;
    struct tensor normed = norm(m, room, x, m->out_norm, m->out_norm_bias);
    b->matmul(&(struct matmul_args){logits, normed, model_product_weight(m, m->head), scale, false, precision});
    add_bias(m, logits, m->head_bias, scale);
    if (m->config.logit_cap > 0) b->softcap(&(struct softcap_args){logits, m->config.logit_cap});
}
