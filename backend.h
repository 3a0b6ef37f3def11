// backend.h: THE contract between models and machines.
//
// A backend is one constant table of functions over plain tensors. The model is written once against this table; cpu/
// fills it for processors, cuda/ for GPUs. Everything a model does is one of the ops below: what an op computes is
// written here as a formula, and cpu/ops.c is the same formula in plain C, kept for ever as the meaning.
//
// Rules that every backend keeps:
//  1. Ops only enqueue. Nothing allocates inside an op after the first call with those sizes.
//  2. A row's result does not depend on its batch. Forward ops give row i the same bits whether it comes alone, among
//     others, or in another order; the order of every sum is fixed by the sizes of the row's own data, never by thread
//     count, number of rows or position.
//  3. Sums over rows (weight gradients) are made of one partial sum per segment of `segment` rows (a sequence), added
//     in order. So a batch split into micro-batches at sequence boundaries gives the same bits.
//  4. supports() is asked when a model is loaded. There is no fallback inside a step.
//  5. Members named _back ADD to gradients of weights and OVERWRITE gradients of activations unless they say otherwise.
//
// Letters: n rows of activations, C channels, M and K rows and columns of a weight, H query heads, G key/value heads,
// D head size, F feed-forward width, V vocabulary. Activations are f32, row-major. A product with a weight is
// out[n,M] = x[n,K] w[M,K]^T, as in PyTorch's Linear.
#ifndef LEHR_BACKEND_H
#define LEHR_BACKEND_H

#include "core/core.h"

// How numbers lie. ROWS: row after row. DEVICE: as the backend likes; data means nothing outside it. A weight becomes so
// by weight_load, and only matmul and embed read it. A cache is so from the start: zeroed memory of a multiple of
// CACHE_ROWS rows with the bytes that ROWS would have, written by store_rows and read by attend only. Rows are written
// into it in order of their number, so memory that comes lazily is taken as the cache fills.
enum { CACHE_ROWS = 256 };
enum layout { LAYOUT_ROWS, LAYOUT_DEVICE };

// A view of memory; owns nothing, frees nothing. A vector is one row. mats > 1: equal matrices one after the other.
struct tensor {
    void *data;
    enum dtype dtype;
    enum layout layout;
    int64_t mats, rows, cols;
    size_t row_bytes; // from a row to the next; cols may be fewer than it holds (a slice of columns)
};

static inline bool tensor_present(const struct tensor *t) { return t->data != NULL; }
static inline struct tensor tensor_f32(float *data, int64_t rows, int64_t cols) {
    return (struct tensor){data, DTYPE_F32, LAYOUT_ROWS, 1, rows, cols, (size_t)cols * sizeof(float)};
}
// Rows [at, at + rows) of a ROWS tensor with mats == 1.
static inline struct tensor tensor_rows(struct tensor t, int64_t at, int64_t rows) {
    assert(t.layout == LAYOUT_ROWS && t.mats == 1 && at >= 0 && rows >= 0 && at + rows <= t.rows);
    t.data = (char *)t.data + (size_t)at * t.row_bytes;
    t.rows = rows;
    return t;
}

enum op {
    OP_EMBED, OP_EMBED_BACK, OP_RMSNORM, OP_RMSNORM_BACK, OP_MATMUL, OP_MATMUL_DX, OP_MATMUL_DW, OP_ROPE, OP_STORE_ROWS,
    OP_ATTEND, OP_ATTEND_BACK, OP_GLU, OP_GLU_BACK, OP_ADD, OP_CROSS_ENTROPY, OP_SUM_SQUARES, OP_UPDATE, OP_ADAFACTOR, OP_CAST,
    OP_LAYERNORM, OP_BIAS, OP_SOFTCAP, OP_ROUTE, OP_ROUTE_BACK, OP_GROUP, OP_MATMUL_EXPERTS, OP_MATMUL_EXPERTS_DX,
    OP_MATMUL_EXPERTS_DW, OP_MIX, OP_MIX_BACK, OP_CLAMP, OP_SINK, OP_HEAD_LOSS, OP_PROJECT, OP_FEED_FORWARD, OP_DROPOUT,
    OP_COUNT
};
const char *op_name(enum op op); // "matmul"
bool op_reads(enum op op, enum dtype dtype); // the supports member of a backend that lacks nothing

// out[i,:] = scale * table[ids[i],:]                       table [V,C] of any dtype; ids on the device, in [0,V)
struct embed_args { struct tensor out, table; const int32_t *ids; float scale; };
// dtable[ids[i],:] += scale * dout[i,:], in order of i     dtable [V,C] f32
struct embed_back_args { struct tensor dtable, dout; const int32_t *ids; float scale; };

// out = x / sqrt(mean(x^2) + eps) * weight, by rows        weight [1,C] f32; out may be x. (Zhang & Sennrich 2019, eq. 4)
struct rmsnorm_args { struct tensor out, x, weight; float eps; };
// dx += d out/d x . dout ; dweight += ... by segments.     dx ADDS: it is the residual stream's gradient
struct rmsnorm_back_args { struct tensor dx, dweight, dout, x, weight; float eps; int64_t segment; };

// How exact a product is. F32: as the formula says. BF16 permits rounding both factors to bf16 (nearest, ties to even)
// before they are multiplied; sums stay f32, in another, equally fixed order, so rule 2 holds within each precision,
// not between them. A backend without units for it multiplies in f32 and says so in report().
enum precision { PRECISION_F32, PRECISION_BF16 };

// out = scale * x w^T + (accumulate ? out : 0)             out [n,M], x [n,K] f32; w [M,K] of any dtype and layout.
// The sum over K: chains of fused multiply-adds over blocks of 256 columns, each from zero, block sums added in order.
// With w of a block format x is first rounded, 32 columns at a time, to whole multiples of max|x| / 32512 (16 bits): the
// dots of codes are then exact integers, and only sums of groups of 16 or 32 columns are rounded, added in order.
// scale 0 means 1, here and below.
struct matmul_args { struct tensor out, x, w; float scale; bool accumulate; enum precision precision; };
// dx = scale * dout w + (accumulate ? dx : 0)              dx [n,K], dout [n,M], w [M,K] ROWS f32 or bf16
struct matmul_dx_args { struct tensor dx, dout, w; float scale; bool accumulate; enum precision precision; };
// dw += scale * dout^T x, by segments of rows              dw [M,K] f32, dout [n,M], x [n,K]; n a multiple of segment
// fresh, here and in head_loss: dw = ..., the first sum of a step.
struct matmul_dw_args { struct tensor dw, dout, x; float scale; int64_t segment; enum precision precision; bool fresh; };

// Rotates pairs of every head of x [n, heads*D] in place by angle pos[i] * freq[j], j < rotated/2. (Su et al. 2021)
// ADJACENT pairs (2j, 2j+1); HALVES pairs (j, j + rotated/2). Columns from `rotated` on stay. inverse: by -angle
// (the backward twin, as a rotation's transpose is its inverse). scale: what is rotated is also multiplied (YaRN's
// attention factor, Peng et al. 2023, section 3.4); 0 means 1.
enum rope_pairs { ROPE_ADJACENT, ROPE_HALVES };
struct rope_args {
    struct tensor x; const int32_t *pos; const float *freq; // freq on the device, rotated/2 values
    int64_t head_size, rotated; enum rope_pairs pairs; bool inverse; float scale;
};

// dst[rows[i],:] = src[i,:] with a cast                    dst (a cache) f32, f16, bf16, q8_0 or q4_0; rows on the device
// Blocks lie along a row and inside a head: with q8_0 and q4_0 head_size is a multiple of 32. side and head_size matter
// for a DEVICE cache only, where keys and values may lie differently.
enum cache_side { CACHE_KEYS, CACHE_VALUES };
struct store_rows_args { struct tensor dst, src; const int32_t *rows; enum cache_side side; int64_t head_size; };

// Dropout (Srivastava et al. 2014). Of 65536 numbers about `below` are dropped, and what is kept grows so that the mean stays.
// Who is dropped is a function of names, so that no batch, thread or order shows, and backward asks again:
//   f(i,c) = rng_row_at(rng_row(seed, place, row + i), c) < below ? 0 : 65536 / (65536 - below)
// place: a part of the model. row: the number in the whole run of the first row at hand. below 0: nothing is dropped.
struct dropout { uint64_t seed, place; int64_t row; uint32_t below; };
static inline float dropout_factor(const struct dropout *d) { return 65536.f / (float)(65536 - d->below); } // of what is kept
static inline struct rng_row dropout_row(const struct dropout *d, int64_t i, int64_t head) {
    return rng_row(d->seed, d->place + (uint64_t)head, (uint64_t)(d->row + i));
}

// Softmax attention. Row i, head h sees key rows lo[i] <= j < hi[i] of k and v, kv head h / (H/G):
//   p_j = softmax_j(scale * q[i,h] . k[j,g]) ; out[i,h] = sum_j p_j v[j,g]
// One op for training (keys are the rows themselves, lo = start of the document), prompt reading and decoding
// (keys are a cache). q, out [n,H*D] f32; k, v [any, G*D] of the dtypes of store_rows, which may differ, both ROWS or both
// DEVICE. An empty range gives zeros. Sums over keys are made of one part per 256 keys, added in order, counted from lo
// in ROWS and from row 0 in DEVICE, so that there rows of a sliding window share their parts.
// lse (may be NULL) receives log-sum-exp of the scaled scores, [n,H], for attend_back.
// precision BF16 permits rounding q, k, v and the p_j (not yet divided by their sum) to bf16; scores and sums stay f32.
// softcap > 0: scores are softcap * tanh(scale * q . k / softcap) (Gemma 2, section 2); attend_back knows none.
// drop, where keys are ROWS: out[i,h] = sum_j f p_j v_j, f = f(i, j - lo[i]) with place + h for the place.
struct attend_args {
    struct tensor out, q, k, v; const int32_t *lo, *hi; float *lse;
    int64_t heads, kv_heads, head_size; float scale; // scale is used as given, never defaulted
    float softcap;
    enum precision precision;
    struct dropout drop;
};
// dq, dk, dv overwritten. k, v f32; rows come in segments, the keys of a row lie inside its own segment.
struct attend_back_args {
    struct tensor dq, dk, dv, dout, out, q, k, v; const int32_t *lo, *hi; const float *lse;
    int64_t heads, kv_heads, head_size; float scale; int64_t segment;
    enum precision precision; // BF16 permits rounding q, k, v, dout, p_j and the gradients of scores to bf16
    struct dropout drop;      // as it was in attend
};

// out = act(gate) * up                                     [n,F]; out may be gate or up; up absent: act(gate).
// SILU: x/(1+e^-x); GELU: tanh form, .5x(1+tanh(sqrt(2/pi)(x+.044715x^3))). (Shazeer 2020)
// Forward only: GELU_ERF: x Phi(x), as first published; RELU2: max(x,0)^2 (So et al. 2021); SIGMOID: 1/(1+e^-x);
// CLAMPED: g/(1+e^(-1.702g)) * (u+1) with g = min(gate,7), u = up held to -7..7 (gpt-oss).
enum glu_kind { GLU_SILU, GLU_GELU, GLU_GELU_ERF, GLU_RELU2, GLU_SIGMOID, GLU_CLAMPED };
struct glu_args { struct tensor out, gate, up; enum glu_kind kind; };
// dgate and dup may alias dout, gate or up.
struct glu_back_args { struct tensor dgate, dup, dout, gate, up; enum glu_kind kind; };

// What a block does between two changes of the stream, so that a backend may hold what is in between where it likes. The
// bits are those of the ops in the formula. norm is absent, or the weight of an rmsnorm: x' = rmsnorm(x), else x' = x.
// The other tensors are rooms for that, which hold anything afterwards; with keep they hold what they are named for.
// Without a norm normed [n,K], room for x', is not touched.
//
// project: to[j].out = x' to[j].w^T for j < count
enum { PROJECT_MOST = 3 };
struct project_args {
    struct tensor x, norm, normed; float eps;
    struct { struct tensor out, w; } to[PROJECT_MOST]; int count;
    enum precision precision; bool keep;
};
// feed_forward: gates = x' gate^T, ups = x' up^T + up_bias, product = act(gates) * ups, or act(ups) where there is no gate;
//   out = scale * product down^T + (accumulate ? out : 0)
// gate, up [F,K], down [M,F]; gates, ups, product [n,F] f32. product may be gates or ups, which are not kept then. out
// [n,M] may be x. up_bias [1,F] may be absent; down, too: then product is what comes out.
struct feed_forward_args {
    struct tensor out, x, norm, normed; float eps;
    struct tensor gate, up, up_bias, down, gates, ups, product;
    enum glu_kind kind; float scale; bool accumulate;
    enum precision precision; bool keep;
};

// out = a + scale * b (a absent: scale * b)                out may be a or b
struct add_args { struct tensor out, a, b; float scale; };

// out = a + scale * f * b (a absent: scale * f * b)        out may be a or b
struct dropout_args { struct tensor out, a, b; float scale; struct dropout drop; };

// z = logit_scale * logits[i,:];  loss[i] = logsumexp(z) - z[target[i]], 0 where target is -1.
// grad_scale != 0: logits[i,:] = grad_scale * logit_scale * (softmax(z) (1 + 2 z_loss logsumexp(z)) - onehot(target)), zeros
// where target is -1: the gradient of loss[i] + z_loss logsumexp(z)^2 (Chowdhery et al. 2022, section 5).
struct cross_entropy_args {
    float *loss; struct tensor logits; const int32_t *targets; float logit_scale, grad_scale, z_loss;
};

// The head and its loss in one, without the logits of all rows. For each row: z = logit_scale * x[i,:] w^T,
//   loss[i] = logsumexp(z) - z[target[i]], 0 where target is -1;
// and with grad_scale != 0, dz = grad_scale * logit_scale * (softmax(z) u - onehot(target)), u = 1 + 2 z_loss logsumexp(z),
// zeros where target is -1:
//   dx = dz w ;  dw += dz^T x by segments.
// As matmul, cross_entropy, matmul_dx and matmul_dw, but only HEAD_ROWS rows, or as many whole segments as `room` has
// place for, at a time. A longer segment is summed up in parts of HEAD_ROWS rows. The size of room shows in no bit.
// PRECISION_BF16 rounds x and w as in matmul, and in the backward products x / t and e^z or, at the target, e^z - t, where
// t = sum(e^z) / u. loss [n]; dx [n,C], dw [V,C] f32; x [n,C] f32; w [V,C] ROWS f32 or bf16. room: head_loss_room bytes or more.
enum { HEAD_ROWS = 1024 };
struct head_loss_args {
    float *loss; struct tensor dx, dw, x, w; const int32_t *targets;
    float logit_scale, grad_scale; int64_t segment; enum precision precision;
    void *room; size_t room_bytes; bool fresh; float z_loss;
};
static inline size_t head_loss_room(int64_t rows, int64_t V) { // for blocks of so many rows
    return (size_t)((rows + 31) / 32 * 32) * (size_t)((V + 31) / 32 * 32) * sizeof(float);
}
static inline int64_t head_loss_least(int64_t segment) { return segment < HEAD_ROWS ? segment : (int64_t)HEAD_ROWS; } // rows

// *out = sum of x^2 in double; chunks of 4096 values summed in order. out on the device.
struct sum_squares_args { double *out; struct tensor x; };

// One step of one parameter by a rule, with the gradient G = g * grad_scale and t = step, from 1 on:
//   ADAM    m = b1 m + (1-b1) G; v = b2 v + (1-b2) G^2; d = mh / (sqrt(vh) + eps), mh = m / (1-b1^t), vh = v / (1-b2^t)
//           (Kingma & Ba 2015)
//   NADAM   the same m and v; d = (b1 m / (1-b1^(t+1)) + (1-b1) G / (1-b1^t)) / (sqrt(vh) + eps) (Dozat 2016)
//   LION    d = sign(b1 m + (1-b1) G), 0 at 0; then m = b2 m + (1-b2) G (Chen et al. 2023)
//   SGD     m = b1 m + G; d = G + b1 m (Nesterov's form); m absent: d = G
// w -= lr (d + weight_decay w); or, where out is present, out = d + weight_decay w, and w stays.
//   SCHEDULE_FREE  v as Adam's, d = G / (sqrt(vh) + eps) + weight_decay w; m -= lr d; x += mix (m - x);
//           w = x + (1-b1) (m - x): gradients are taken at w between m, the fast point, and x, their average (Defazio et
//           al. 2024)
// w, g, m, v, x, out f32 of one shape, those a rule does not name absent; copy (may be absent): bf16, receives the
// rounded w.
enum update_rule { UPDATE_ADAM, UPDATE_NADAM, UPDATE_LION, UPDATE_SGD, UPDATE_SCHEDULE_FREE };
struct update_args {
    struct tensor w, g, m, v, x, copy, out; enum update_rule rule;
    float lr, beta1, beta2, eps, weight_decay, grad_scale, mix; int64_t step;
};
// Adafactor (Shazeer & Stern 2018, algorithms 4 and 5) on G, with r = step^-0.8:
//   row_i += r (mean_j G_ij^2 - row_i); column_j likewise; V_ij = row_i column_j / mean(row); one row: V = column
//   u = G / sqrt(V); w -= lr weight_decay w; w -= min(lr, 1/sqrt(step)) max(1e-3, rms(w)) u / max(1, rms(u))
// row, column [1, rows] and [1, cols] f32; scratch: two doubles a row.
struct adafactor_args {
    struct tensor w, g, row, column, copy; double *scratch; float lr, weight_decay, grad_scale; int64_t step;
};

// dst = src converted, element by element; same rows and cols. Any dtypes with a conversion; ROWS.
struct cast_args { struct tensor dst, src; };

// --- what only some families need, forward only
// out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, by rows; weight and bias may be absent; out may be x. (Ba et
// al. 2016)
struct layernorm_args { struct tensor out, x, weight, bias; float eps; };
// x[i,:] += scale * bias[:]                                bias [1,C] f32
struct bias_args { struct tensor x, bias; float scale; };
// x = cap * tanh(x / cap)                                  [n,V] in place
struct softcap_args { struct tensor x; float cap; };
// x = x held to -limit..limit                              [n,F] in place; NaN stays
struct clamp_args { struct tensor x; float limit; };
// An attention sink: a key of score sinks[h] and value zero beside those that attend saw. x[i,h,:] *= 1 / (1 + e^(sinks[h]
// - lse[i,h])), x [n,H*D] attend's out and lse its lse [n,H], sinks [1,H] f32. (Xiao et al. 2023; gpt-oss)
struct sink_args { struct tensor x, sinks; const float *lse; };

// --- a mixture of experts
// Router: p = softmax(logits[i,:]) over E experts; chosen[i,0..used) are the experts of the largest p, largest first, the
// lower number first among equals; weight[i,:] their p, divided by their sum when renormalize is set. logits [n,E] stay;
// chosen and weight [n,used] on the device. (Shazeer et al. 2017, eq. 3 to 5)
struct route_args { struct tensor logits; int32_t *chosen; float *weight; int64_t used; bool renormalize; };
// Pairs p = i * used + k of a row and its k-th expert, in order of experts, within one in order of p: pair p goes to place
// q = place[p], where row[q] = i and expert[q] = chosen[p]. start[e * segments + s], segments = rows / segment, is the place
// where expert e's pairs of the s-th segment of rows begin; start[experts * segments] = rows * used. All on the device.
struct group_args {
    const int32_t *chosen; int64_t rows, used, experts, segment; int32_t *place, *row, *expert, *start;
};
// With rows in that order: out[q,:] = x[q,:] w[e]^T, e the expert of q, with the sums of matmul, however many rows an expert
// has. w: `experts` matrices [M,K] as weight_load made them, or ROWS (the array itself is on the host).
struct matmul_experts_args {
    struct tensor out, x; const struct tensor *w; const int32_t *start; int64_t experts, segments; enum precision precision;
};
// dx[q,:] = dout[q,:] w[e] + (accumulate ? dx : 0)         w [M,K] ROWS f32 or bf16
struct matmul_experts_dx_args {
    struct tensor dx, dout; const struct tensor *w; const int32_t *start; int64_t experts, segments; bool accumulate;
    enum precision precision;
};
// dw[e] += sum over e's rows of dout[q,:]^T x[q,:], by segments; dw f32, `experts` matrices [M,K] as the rows of one. Segments
// in which e has no row add nothing. fresh: dw = the first sum, or zero.
struct matmul_experts_dw_args {
    struct tensor dw, dout, x; const int32_t *start; int64_t experts, segments; enum precision precision; bool fresh;
};
// out[i,:] = sum over k < used, in order, of weight[p] * x[place[p],:], p = i * used + k. weight NULL: ones; place NULL: p.
struct mix_args { struct tensor out, x; const float *weight; int64_t used; const int32_t *place; };
// dx[place[p],:] = scale * weight[p] * dout[i,:]
struct mix_back_args { struct tensor dx, dout; const float *weight; int64_t used; const int32_t *place; float scale; };
// Gradient of the logits: of the weights, of what balances the experts, and of the logits' size. With z the logits of row i,
// p = softmax(z), l = logsumexp(z), b the row of `balance` that is i's (one for all rows, or one for each segment):
//   s[k] = x[q] . dx[q], q = place[i * used + k]: what the weight was multiplied with (x), and the gradient that came there
//          with the weight in it (dx), so s is the weight times its own gradient
//   dlogits[i,e] = (s[k] where e is the k-th chosen, else 0) - h[e] * sum of s + p[e] (b[e] - sum of b p) + 2 z_loss l p[e]
// where h is the weights when they were renormalized (0 for those not chosen), else p. other[i] = sum of b p + z_loss l^2,
// the loss of which the last two are the gradient. balance absent: zeros. (Fedus et al. 2021, eq. 4; Zoph et al. 2022, eq. 5)
struct route_back_args {
    struct tensor dlogits, logits, x, dx, balance; const int32_t *chosen, *place; const float *weight; float *other;
    int64_t used; bool renormalize; float z_loss;
};

// The most that one unit of a machine did when nothing else was asked of it.
enum { CEILINGS_MOST = 16 };
struct ceiling {
    const char *name, *measure; // "f32 avx2", "GFLOP/s"
    double per_second;          // bytes or operations; a multiply-add is two of these
};

struct backend {
    const char *name; // "cpu"
    // matmul, matmul_experts and embed also take weights as ROWS in host memory, with the same bits, more slowly.
    bool reads_host;
    // --- memory. Device addresses are void *; on the CPU they are host addresses.
    void *(*alloc)(size_t bytes, const char *what, struct err *err); // zeroed; NULL on failure
    void (*free)(void *p);
    void (*upload)(void *device, const void *host, size_t bytes);
    void (*download)(void *host, const void *device, size_t bytes); // waits for what was enqueued
    void (*copy)(void *device_to, const void *device_from, size_t bytes);
    void (*zero)(void *device, size_t bytes);
    // A weight for matmul and embed, from rows in host memory that may be a mapped file. The result may point into
    // host memory, which must then outlive it; *owned says whether free(result.data) is due.
    bool (*weight_load)(struct tensor *device, const struct tensor *host, bool *owned, struct err *err);
    // --- flow
    // Bracket the ops of a pass. Such a pass may be kept and started again as it was, which costs the host of a GPU next to
    // nothing: with a key other than 0, begin returns true when it did so, and then neither the ops nor end are called. The
    // caller vouches that all arguments are what they were with the last begin(key), but for what lies in memory, and that
    // between begin(key) and end there are ops, copy and zero only. forget: before memory of such passes is freed; all keys.
    bool (*begin)(uint64_t key);
    void (*end)(void);
    void (*forget)(void);
    void (*sync)(void);
    void (*report)(struct text *line); // device, threads, kernels chosen: one line
    // What this machine can do with the threads of the pool, measured: reading memory first, then every unit present, each
    // the best of short samples of `seconds` in all. Returns how many rows were filled; 0 with a reason on failure.
    int (*ceilings)(struct ceiling to[CEILINGS_MOST], double seconds, struct err *err);
    // The name among them of the unit that does matmul with such weights. The codes of a block format are multiplied with
    // activations of 16 bits, which takes two products of bytes each.
    const char *(*unit)(enum dtype weight, enum precision precision);
    bool (*supports)(enum op op, enum dtype dtype); // dtype of the weight, table or cache the op reads
    // --- ops
    void (*embed)(const struct embed_args *a);
    void (*embed_back)(const struct embed_back_args *a);
    void (*rmsnorm)(const struct rmsnorm_args *a);
    void (*rmsnorm_back)(const struct rmsnorm_back_args *a);
    void (*matmul)(const struct matmul_args *a);
    void (*matmul_dx)(const struct matmul_dx_args *a);
    void (*matmul_dw)(const struct matmul_dw_args *a);
    void (*rope)(const struct rope_args *a);
    void (*store_rows)(const struct store_rows_args *a);
    void (*attend)(const struct attend_args *a);
    void (*attend_back)(const struct attend_back_args *a);
    void (*glu)(const struct glu_args *a);
    void (*glu_back)(const struct glu_back_args *a);
    void (*add)(const struct add_args *a);
    void (*cross_entropy)(const struct cross_entropy_args *a);
    void (*sum_squares)(const struct sum_squares_args *a);
    void (*update)(const struct update_args *a);
    void (*adafactor)(const struct adafactor_args *a);
    void (*cast)(const struct cast_args *a);
    void (*layernorm)(const struct layernorm_args *a);
    void (*bias)(const struct bias_args *a);
    void (*softcap)(const struct softcap_args *a);
    void (*route)(const struct route_args *a);
    void (*route_back)(const struct route_back_args *a);
    void (*group)(const struct group_args *a);
    void (*matmul_experts)(const struct matmul_experts_args *a);
    void (*matmul_experts_dx)(const struct matmul_experts_dx_args *a);
    void (*matmul_experts_dw)(const struct matmul_experts_dw_args *a);
    void (*mix)(const struct mix_args *a);
    void (*mix_back)(const struct mix_back_args *a);
    void (*clamp)(const struct clamp_args *a);
    void (*sink)(const struct sink_args *a);
    void (*head_loss)(const struct head_loss_args *a);
    void (*project)(const struct project_args *a);
    void (*feed_forward)(const struct feed_forward_args *a);
    void (*dropout)(const struct dropout_args *a);
};

// level: NULL for the best kernels here, else "plain", "avx2", "avx512", "amx", "neon", "dotprod" or "i8mm" (refused when not present).
// NULL with a reason on failure. Starts nothing: the caller has called pool_start.
const struct backend *backend_cpu(const char *level, struct err *err);
// GPU number `device`, 0 the first. NULL with a reason where there is none. One for a process: later calls return the first.
// Only where this build has cuda/ (device.h tells).
const struct backend *backend_cuda(int device, struct err *err);

// b with a clock around every op: same results. One profile for a process, which begins anew, at rest, with this call.
const struct backend *backend_profiled(const struct backend *b);
void backend_profile_run(bool run); // from here on, until false
// What the ops cost meanwhile, the dearest first: calls, seconds by the clock and their share, seconds of all processors
// and operations per one of them. The last line is all else. Then it begins anew.
void backend_profile(struct text *to);

#endif
