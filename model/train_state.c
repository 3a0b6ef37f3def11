// train_state.c: one micro-batch: forward, loss, backward.
//
// A micro-batch is worked off in groups of whole sequences, so few that their activations stay within ACTS_BYTES and what
// the caller allows, and the head in blocks within ROOM_BYTES. When a single sequence is too much, layers give up what
// they keep and compute it again (backward.c). None of this shows in the results: what is computed again has the same
// bits, and
//   - every sum over rows in a weight's gradient is one partial sum per sequence, added in order (backend.h, rule 3);
//   - a tied embedding gets two shares, as the head and as the embedding. What it gets as the embedding is collected apart,
//     row after row, and added when the step is complete: only rows of tokens that were seen;
//   - what an exit gives to the norm and the head is collected apart as well, sequence after sequence, and added when the step
//     is complete: beside what the last layer gives them, group by group, the order of the sums would show the groups;
//   - losses are rounded to 2^-26 nats before they are added in double, which makes the sum exact (below 2^27 nats),
//     so the caller may add up micro-batches of any size and get the same bits.
// The same make a batch independent of how the caller cuts it into micro-batches.
#include "model/internal.h"

#include <math.h>
#include <string.h>

#ifdef LEHR_GUARD
static const size_t ACTS_BYTES = 256u << 10; // test builds see many groups
#else
static const size_t ACTS_BYTES = 512u << 20;
#endif
static const size_t ROOM_BYTES = 128u << 20;

struct train_state {
    struct model *m;
    int64_t max_rows, T, group_rows;
    void *block;                    // everything below that lies on the device
    struct acts acts;
    struct back back;
    char *room;                     // of the head
    size_t room_bytes;
    bool tight;                     // as little room for the head as can be
    struct tensor looked_up;        // [V,C] a tied embedding's gradient as the embedding; absent when it is not tied
    float *losses;                  // [group_rows]
    // Of an exit; absent without one.
    struct tensor exit_head, exit_norm; // [V,C], [1,C] gradients
    float *exit_losses;             // [group_rows]
    bool exit_fresh;                // nothing was collected since they were added
    double exit_sum;
    int32_t *ids, *targets, *pos, *lo, *hi; // [group_rows]
    int32_t *host_lo, *host_hi;     // [group_rows] host
    float *host_losses;             // [group_rows] host
    bool *seen;                     // [V] host: looked_up has such a row
    int32_t *host_seen;             // [V] host: which
    int64_t n_seen;
    const struct observer *observer;
    struct objective aim;
    struct dropout drop;            // of the next train_loss
    int32_t *use;                   // [L*E] host: rows of this step that chose each expert
    double *other;                  // [L] host: of this step, what back.other sums up to
    int32_t *host_start;            // [E*sequences+1] host
    float *host_rows;               // [max(group_rows,sequences*E)] host
};

// Lays out all device memory of t; t->acts.layer must have its L entries.
static void place(struct train_state *t, const struct model_config *c, struct slab *s) {
    int64_t n = t->group_rows;
    t->acts.segment = t->T;
    acts_place(&t->acts, c, n, true, s);
    back_place(&t->back, c, &t->acts, n, s);
    t->losses = slab_take(s, n, sizeof *t->losses);
    int32_t **ints[] = {&t->ids, &t->targets, &t->pos, &t->lo, &t->hi};
    for (size_t i = 0; i < COUNT_OF(ints); i++) *ints[i] = slab_take(s, n, sizeof(int32_t));
    if (c->tied) t->looked_up = slab_tensor(s, DTYPE_F32, c->V, c->C);
    if (c->exit_layer) {
        t->exit_head = slab_tensor(s, DTYPE_F32, c->V, c->C);
        t->exit_norm = slab_tensor(s, DTYPE_F32, 1, c->C);
        t->exit_losses = slab_take(s, n, sizeof *t->exit_losses);
    }
    t->room_bytes = head_loss_room(n, c->V);
    size_t least = head_loss_room(head_loss_least(t->T), c->V), most = least > ROOM_BYTES || t->tight ? least : ROOM_BYTES;
    if (t->room_bytes > most) t->room_bytes = most;
    t->room = slab_take(s, (int64_t)t->room_bytes, 1);
}

static int64_t host_rows(const struct train_state *t, const struct model_config *c) {
    int64_t shares = t->group_rows / t->T * c->E;
    return shares > t->group_rows ? shares : t->group_rows;
}

static size_t acts_bytes(struct train_state *t, const struct model_config *c) {
    struct slab s = {0};
    t->acts.segment = t->T;
    acts_place(&t->acts, c, t->group_rows, true, &s);
    back_place(&t->back, c, &t->acts, t->group_rows, &s);
    return s.too_big ? SIZE_MAX : s.used;
}

static size_t all_bytes(struct train_state *t, const struct model_config *c) {
    struct slab s = {0};
    place(t, c, &s);
    size_t lists = c->E > 0 ? (size_t)(c->L * c->E + host_rows(t, c) + t->group_rows / t->T * c->E + 1) * sizeof(int32_t) : 0;
    size_t host = lists + (size_t)c->L * (sizeof *t->acts.layer + sizeof *t->other) + 3 * sizeof(int32_t) * (size_t)t->group_rows +
                  (sizeof *t->seen + sizeof *t->host_seen) * (size_t)c->V;
    return s.too_big || s.used > SIZE_MAX - host ? SIZE_MAX : s.used + host;
}

// Operations that are done again, over those of a step (forward.c counts them).
static double work_again(const struct recompute *again, const struct model_config *c, int64_t T) {
    double q = (double)(c->H * c->D), kv = (double)(c->G * c->D), C = (double)c->C;
    double half = 4 * C * (double)(c->F * (c->E ? c->used : 1)), rest = 4 * C * (q + kv) + 2 * q * (double)T;
    return ((double)again->halves * half + (double)again->wholes * rest) / config_flops_per_token(c, T);
}

// One sequence with the least recomputation that fits or, when it needs none, as many as fit.
static void fit(struct train_state *t, const struct model_config *c, int64_t max_rows, size_t memory) {
    struct recompute *again = &t->acts.again;
    int64_t n = 0; // steps down from keeping all
    t->group_rows = t->T;
    t->tight = all_bytes(t, c) > memory;
    while (all_bytes(t, c) > memory && n < 2 * (c->L - 1)) {
        n++;
        again->halves = n < c->L ? n : c->L - 1;
        again->wholes = n - again->halves;
    }
    again->work = work_again(again, c, t->T);
    while (n == 0 && t->group_rows + t->T <= max_rows) {
        t->group_rows += t->T;
        if (acts_bytes(t, c) <= ACTS_BYTES && all_bytes(t, c) <= memory) continue;
        t->group_rows -= t->T;
        break;
    }
}

size_t train_state_bytes(const struct model_config *c, int64_t max_rows, int64_t T, size_t memory, struct recompute *again) {
    struct train_state t = {.T = T};
    t.acts.layer = mem_array((size_t)c->L, sizeof *t.acts.layer, "activation table");
    fit(&t, c, max_rows, memory);
    size_t bytes = all_bytes(&t, c);
    mem_free(t.acts.layer);
    if (again) *again = t.acts.again;
    return bytes;
}

static bool check_backend(const struct backend *b, bool experts, struct err *err) {
    static const enum op needs[] = {OP_EMBED, OP_EMBED_BACK, OP_RMSNORM, OP_RMSNORM_BACK, OP_MATMUL_DW, OP_ROPE,
                                    OP_ATTEND, OP_ATTEND_BACK, OP_GLU, OP_GLU_BACK, OP_HEAD_LOSS,
                                    // with experts, from here on
                                    OP_ROUTE, OP_ROUTE_BACK, OP_GROUP, OP_MATMUL_EXPERTS_DX, OP_MATMUL_EXPERTS_DW, OP_MIX, OP_MIX_BACK};
    for (size_t i = 0; i < COUNT_OF(needs); i++) {
        if (needs[i] == OP_ROUTE && !experts) break;
        if (!b->supports(needs[i], DTYPE_F32))
            return err_set(err, "the %s backend has no %s, which training needs", b->name, op_name(needs[i]));
    }
    return true;
}

static void forget_use(struct train_state *t) {
    const struct model_config *c = &t->m->config;
    if (c->E > 0) memset(t->use, 0, (size_t)(c->L * c->E) * sizeof *t->use);
    memset(t->other, 0, (size_t)c->L * sizeof *t->other);
}

bool train_state_fits(const struct model_config *c, int64_t T, size_t memory, struct err *err) {
    char a[32], b[32];
    size_t least = train_state_bytes(c, T, T, memory, NULL);
    return least <= memory ||
           err_set(err, "the activations of one sequence of %lld tokens take %s, even with every layer computed again in the "
                   "backward pass; %s are allowed: allow more, or take shorter sequences", (long long)T,
                   text_bytes(a, (double)least), text_bytes(b, (double)memory));
}

struct train_state *train_state_new(struct model *m, int64_t max_rows, int64_t T, size_t memory, struct err *err) {
    assert(m->trainable && T > 0 && max_rows > 0 && max_rows % T == 0);
    const struct model_config *c = &m->config;
    if (!check_backend(m->backend, c->E > 0, err)) return NULL;
    struct train_state *t = mem_alloc(sizeof *t, "training state");
    *t = (struct train_state){.m = m, .max_rows = max_rows, .T = T, .exit_fresh = true};
    t->acts.layer = mem_array((size_t)c->L, sizeof *t->acts.layer, "activation table");
    fit(t, c, max_rows, memory);
    struct slab s = {0};
    if (train_state_fits(c, T, memory, err)) place(t, c, &s);
    if (s.too_big) err_set(err, "activations of %lld rows do not fit in an address space", (long long)T);
    else if (s.used) t->block = m->backend->alloc(s.used, "activations", err);
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
    t->seen = mem_array((size_t)c->V, sizeof *t->seen, "tokens seen");
    t->host_seen = mem_array((size_t)c->V, sizeof *t->host_seen, "tokens seen");
    memset(t->seen, 0, (size_t)c->V * sizeof *t->seen);
    t->other = mem_array((size_t)c->L, sizeof *t->other, "losses of routers");
    if (c->E > 0) {
        t->use = mem_array((size_t)(c->L * c->E), sizeof *t->use, "use of experts");
        t->host_start = mem_array(n / (size_t)T * (size_t)c->E + 1, sizeof *t->host_start, "use of experts");
        t->host_rows = mem_array((size_t)host_rows(t, c), sizeof *t->host_rows, "use of experts");
    }
    forget_use(t);
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
    mem_free(t->seen);
    mem_free(t->host_seen);
    mem_free(t->use);
    mem_free(t->other);
    mem_free(t->host_start);
    mem_free(t->host_rows);
    mem_free(t);
}

void train_observe(struct train_state *t, const struct observer *o) { t->observer = o; }

void train_drop(struct train_state *t, struct dropout drop) { t->drop = drop; }

static void forget_seen(struct train_state *t) {
    memset(t->seen, 0, (size_t)t->m->config.V * sizeof *t->seen);
    t->n_seen = 0;
}

void train_zero_grads(struct train_state *t) {
    const struct model *m = t->m;
    // Matrices are written over by the first product into them, which saves two walks through all of their memory.
    for (int i = 0; i < m->n_params; i++) {
        const struct param *p = &m->params[i];
        if (param_is_vector(p) || (i == m->embed && !m->config.tied))
            m->backend->zero(p->grad.data, (size_t)p->grad.rows * p->grad.row_bytes);
    }
    t->back.fresh = t->exit_fresh = true;
    t->exit_sum = 0;
    if (t->n_seen) t->m->backend->zero(t->looked_up.data, (size_t)t->looked_up.rows * t->looked_up.row_bytes);
    forget_seen(t); // of a step that was given up
    forget_use(t);
}

void train_state_aim(struct train_state *t, const struct objective *o) {
    assert(o->exit_weight == 0 || t->m->config.exit_layer);
    t->aim = *o;
}

double train_close_use(struct train_state *t) {
    const struct model_config *c = &t->m->config;
    double sum = 0;
    for (int64_t l = 0; l < c->L; l++) sum += t->other[l];
    if (c->E > 0) memcpy(t->m->expert_use, t->use, (size_t)(c->L * c->E) * sizeof *t->use);
    forget_use(t);
    return sum;
}

double train_exit_loss(struct train_state *t) {
    double sum = t->exit_sum;
    t->exit_sum = 0;
    return sum;
}

double train_imbalance(const struct model *m) {
    const struct model_config *c = &m->config;
    double sum = 0;
    for (int64_t l = 0; m->expert_use && l < c->L; l++) {
        int64_t most = 0, all = 0;
        for (int64_t e = 0; e < c->E; e++) {
            int64_t rows = m->expert_use[l * c->E + e];
            most = rows > most ? rows : most;
            all += rows;
        }
        if (all > 0) sum += (double)most * (double)c->E / (double)all;
    }
    return sum / (double)c->L;
}

// What the exit gave to norm and head.
static void add_exit(struct train_state *t) {
    const struct model *m = t->m;
    struct tensor norm = m->params[m->out_norm].grad, head = m->params[m->head].grad;
    if (t->exit_fresh) return;
    m->backend->add(&(struct add_args){head, head, t->exit_head, 1});
    m->backend->add(&(struct add_args){norm, norm, t->exit_norm, 1});
    t->exit_fresh = true;
}

void train_close_grads(struct train_state *t) {
    const struct backend *b = t->m->backend;
    struct tensor grad = t->m->params[t->m->embed].grad;
    add_exit(t);
    for (int64_t at = 0; at < t->n_seen; at += t->group_rows) {
        int64_t n = t->n_seen - at < t->group_rows ? t->n_seen - at : t->group_rows;
        struct tensor rows = tensor_first(t->back.dnorm, n);
        b->upload(t->ids, t->host_seen + at, (size_t)n * sizeof(int32_t));
        b->embed(&(struct embed_args){rows, t->looked_up, t->ids, 1});
        b->embed_back(&(struct embed_back_args){grad, rows, t->ids, 1});
        b->embed_back(&(struct embed_back_args){t->looked_up, rows, t->ids, -1}); // leaves exact zeros
    }
    forget_seen(t);
}

// Rows [at, at + n) of the batch to the device; key ranges become relative to the group.
static void upload_group(struct train_state *t, const struct train_batch *b, int64_t at, int64_t n, bool grads) {
    const struct backend *be = t->m->backend;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = at + i, sequence = row / t->T * t->T;
        assert(b->doc_start[row] >= sequence && b->doc_start[row] <= row);
        assert(b->ids[row] >= 0 && b->ids[row] < t->m->config.V && b->targets[row] < t->m->config.V);
        (void)sequence;
        if (t->looked_up.data && grads && !t->seen[b->ids[row]]) {
            t->seen[b->ids[row]] = true;
            t->host_seen[t->n_seen++] = b->ids[row];
        }
        t->host_lo[i] = (int32_t)(b->doc_start[row] - at);
        t->host_hi[i] = (int32_t)(i + 1);
    }
    size_t bytes = (size_t)n * sizeof(int32_t);
    be->upload(t->ids, b->ids + at, bytes);
    be->upload(t->targets, b->targets + at, bytes);
    be->upload(t->lo, t->host_lo, bytes);
    be->upload(t->hi, t->host_hi, bytes);
}

// Where the stream is read: behind the last layer, or at an exit.
struct way_out {
    struct tensor x;           // [any,C] the stream
    struct tensor dhead, dnorm; // [V,C], [1,C] what they get of the gradient; dhead is written when fresh
    float *losses;
    float grad_scale;
    bool fresh;
};

// The head and the losses; with a gradient, d loss/d x is added to back.dx.
static void head_group(struct train_state *t, const struct pass *p, const struct way_out *o) {
    const struct model *m = t->m;
    const struct backend *b = m->backend;
    const struct param *norm = &m->params[m->out_norm];
    struct tensor x = tensor_first(o->x, p->n);                // [n,C]
    struct tensor normed = tensor_first(t->acts.norm, p->n);   // [n,C]
    struct tensor dnormed = tensor_first(t->back.dnorm, p->n);    // [n,C]
    struct tensor dx = tensor_first(t->back.dx, p->n);         // [n,C]
    b->rmsnorm(&(struct rmsnorm_args){normed, x, norm->w, m->config.norm_eps});
    b->head_loss(&(struct head_loss_args){o->losses, dnormed, o->dhead, normed, model_product_weight(m, m->head),
                                          t->targets, 1 / m->config.logit_divisor, o->grad_scale, t->T, p->precision, t->room,
                                          t->room_bytes, o->fresh, (float)t->aim.head_z});
    if (o->grad_scale == 0) return;
    b->rmsnorm_back(&(struct rmsnorm_back_args){dx, o->dnorm, dnormed, x, norm->w, m->config.norm_eps, t->T});
}

// Behind the last layer: nothing is in back.dx before.
static void end_group(struct train_state *t, const struct pass *p, float grad_scale) {
    const struct model *m = t->m;
    struct tensor dx = tensor_first(t->back.dx, p->n); // [n,C]
    if (grad_scale != 0) m->backend->zero(dx.data, (size_t)dx.rows * dx.row_bytes);
    head_group(t, p, &(struct way_out){t->acts.out, m->params[m->head].grad, m->params[m->out_norm].grad, t->losses, grad_scale, t->back.fresh});
}

// At the exit: the stream that enters layer config.exit_layer is there, its gradient of what follows in back.dx.
static void exit_group(struct train_state *t, const struct pass *p, float grad_scale) {
    const struct model *m = t->m;
    if (grad_scale != 0 && t->exit_fresh) m->backend->zero(t->exit_norm.data, t->exit_norm.row_bytes);
    head_group(t, p, &(struct way_out){t->acts.layer[m->config.exit_layer].x, t->exit_head, t->exit_norm, t->exit_losses,
                                       grad_scale * (float)t->aim.exit_weight, t->exit_fresh});
    if (grad_scale != 0) t->exit_fresh = false;
}

// balance[e] = coef * E * share[e] * grad_scale, where share is what e's count is of all of them; zeros when nothing was counted.
static void balance_row(const struct train_state *t, const int32_t *count, double grad_scale, float *to) {
    const int64_t E = t->m->config.E;
    int64_t all = 0;
    for (int64_t e = 0; e < E; e++) all += count[e];
    for (int64_t e = 0; e < E; e++)
        to[e] = all ? (float)(t->aim.balance_coef * (double)E * (double)count[e] / (double)all * grad_scale) : 0;
}

// Between forward and backward of a group of n rows: counts who was chosen and says what the routers are to balance.
static void balance_group(struct train_state *t, int64_t n, double grad_scale) {
    const struct model_config *c = &t->m->config;
    const struct backend *b = t->m->backend;
    const int64_t E = c->E, S = n / t->T;
    struct back *s = &t->back;
    s->z_loss = (float)(t->aim.router_z * grad_scale);
    s->balances = t->aim.balance == BALANCE_NONE ? 0 : S;
    for (int64_t l = 0; l < c->L; l++) {
        b->download(t->host_start, t->acts.layer[l].start, (size_t)(E * S + 1) * sizeof(int32_t));
        int32_t *use = t->use + l * E; // by the sequences of this step before the group's
        for (int64_t i = 0; i < s->balances; i++) {
            int32_t count[EXPERTS_MAX];
            for (int64_t e = 0; e < E; e++) {
                const int32_t *start = t->host_start + e * S;
                count[e] = t->aim.balance == BALANCE_GLOBAL ? use[e] + start[i + 1] - start[0] : start[i + 1] - start[i];
            }
            balance_row(t, count, grad_scale, t->host_rows + i * E);
        }
        for (int64_t e = 0; e < E; e++) use[e] += t->host_start[(e + 1) * S] - t->host_start[e * S];
        struct tensor to = tensor_rows(s->balance, l * s->balances, s->balances);
        if (s->balances) b->upload(to.data, t->host_rows, (size_t)s->balances * to.row_bytes);
    }
}

// The losses of a group, rounded so that their sum is exact; each (may be NULL) receives them.
static double sum_losses(struct train_state *t, const float *losses, int64_t n, float *each) {
    double sum = 0;
    t->m->backend->download(t->host_losses, losses, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) sum += nearbyint((double)t->host_losses[i] * 0x1p26) * 0x1p-26;
    if (each) memcpy(each, t->host_losses, (size_t)n * sizeof *each);
    return sum;
}

// Row by row in each layer, so that groups show in no bit.
static void take_other(struct train_state *t, int64_t n) {
    const struct model_config *c = &t->m->config;
    for (int64_t l = 0; l < c->L; l++) {
        t->m->backend->download(t->host_rows, t->back.other + l * n, (size_t)n * sizeof(float));
        for (int64_t i = 0; i < n; i++) t->other[l] += (double)t->host_rows[i];
    }
}

double train_loss(struct train_state *t, const struct train_batch *batch, float grad_scale, float *losses) {
    assert(batch->T == t->T && batch->rows > 0 && batch->rows % t->T == 0 && batch->rows <= t->max_rows);
    const struct model *m = t->m;
    const struct backend *b = m->backend;
    const int64_t L = m->config.L, exit = t->aim.exit_weight > 0 ? m->config.exit_layer : 0;
    double sum = 0;
    for (int64_t at = 0; at < batch->rows; at += t->group_rows) {
        int64_t n = batch->rows - at < t->group_rows ? batch->rows - at : t->group_rows;
        struct pass p = {.n = n, .ids = t->ids, .pos = t->pos, .lo = t->lo, .hi = t->hi, .acts = &t->acts,
                         .precision = model_precision(m), .observer = t->observer, .drop = t->drop};
        p.drop.row += at;
        upload_group(t, batch, at, n, grad_scale != 0);
        b->begin(0);
        model_forward(m, &p);
        end_group(t, &p, grad_scale);
        if (grad_scale != 0 && m->config.E > 0) balance_group(t, n, (double)grad_scale);
        if (grad_scale != 0 && exit) model_backward(m, &p, &t->back, t->T, exit, L);
        if (exit) exit_group(t, &p, grad_scale);
        if (grad_scale != 0) {
            model_backward(m, &p, &t->back, t->T, 0, exit ? exit : L);
            if (m->config.E > 0) take_other(t, n);
            struct tensor table = t->looked_up.data ? t->looked_up : m->params[m->embed].grad;
            b->embed_back(&(struct embed_back_args){table, tensor_first(t->back.dx, n), p.ids, m->config.m_emb});
            t->back.fresh = false;
        }
        b->end();
        sum += sum_losses(t, t->losses, n, losses ? losses + at : NULL);
        if (exit) t->exit_sum += sum_losses(t, t->exit_losses, n, NULL);
    }
    t->drop = (struct dropout){0};
    return sum;
}

struct tensor train_activation(const struct train_state *t, enum train_act what, int64_t layer) {
    assert(layer >= 0 && layer < t->m->config.L + (what == ACT_STREAM));
    if (layer == t->m->config.L) return t->acts.out;
    const struct layer_acts *y = &t->acts.layer[layer];
    return (const struct tensor[]){[ACT_STREAM] = y->x, [ACT_MID] = y->mid, [ACT_QUERIES] = y->q, [ACT_KEYS] = y->k,
                                   [ACT_ATTENDED] = y->attended, [ACT_GATE] = y->gate}[what];
}
