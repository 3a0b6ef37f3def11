// internal.h: what the files of model/ share. Nothing outside includes it.
//
// A pass is one call of model_forward: a batch of rows and where their keys lie. Activations are plain views over
// one block of device memory (a slab), laid out by one function that is called twice: once to count the bytes, once
// to place them, so that what --plan promises is what is allocated. Training keeps one set of layer activations per
// layer, or lets some layers compute into the set of the layer above, whose turn in the backward pass comes before theirs;
// a session has one set that all layers overwrite, with the three views of the residual stream being one buffer.
#ifndef LEHR_MODEL_INTERNAL_H
#define LEHR_MODEL_INTERNAL_H

#include "model/model.h"

// Takes pieces of a block of device memory, 64-byte aligned, in call order. base NULL: counts only. A size that
// does not fit in size_t sets too_big and counts no further.
struct slab {
    char *base;
    size_t used;
    bool too_big;
};
void *slab_take(struct slab *s, int64_t count, size_t each_bytes);
struct tensor slab_tensor(struct slab *s, enum dtype dtype, int64_t rows, int64_t cols); // ROWS

// What one layer computes for n rows, in order of the block.
struct layer_acts {
    struct tensor x;        // [n,C]    the residual stream entering the layer
    struct tensor q;        // [n,H*D]  queries, rotated
    struct tensor k, v;     // [n,G*D]  keys (rotated) and values
    struct tensor q_raw, k_raw; // before their norm, where they have one; the same buffers as q and k in a session
    float *lse;             // [n,H]    log-sum-exp of the scores; NULL when no gradient is wanted
    struct tensor attended; // [n,H*D]
    struct tensor mid;      // [n,C]    the stream after attention; the same buffer as x in a session
    struct tensor gate, up; // [n,F]; with experts [n*used,F], in their order
    // With experts only (E, used); places and pairs as in backend.h, group.
    struct tensor routes;   // [n,E]  logits of the router
    int32_t *chosen;        // [n,used]
    float *weight;          // [n,used]
    int32_t *place, *row;   // [n*used]
    int32_t *start;         // [E*segments+1]
};

struct acts {
    struct layer_acts *layer; // [L] when kept, else [1]
    bool kept;
    struct recompute again;   // what is not kept after all; set before acts_place
    struct tensor out;        // [n,C]  the stream after the last layer; the same buffer as x in a session
    struct tensor norm;       // [n,C]  output of the norm in use
    struct tensor glu;        // [n,F]  silu(gate) * up, with experts [n*used,F]; the same buffer as gate in a session
    // With experts only:
    int64_t segment;          // rows of a segment; 0: all rows are one
    int32_t *expert;          // [n*used]
    struct tensor parts;      // [n*used,C] in order of experts, what goes into them, then what comes out
    struct tensor expert_bias; // [n*used,max(F,C)], where experts have biases
    // With a shared expert only:
    struct tensor shared_gate, shared_up; // [n,FS]
    struct tensor shared;     // [n,C]
    struct tensor share;      // [n,1] how much of it is added
    struct tensor side;       // [n,C] input of the feed-forward, where it is made before attention changes the stream
};
static inline struct layer_acts *acts_layer(const struct acts *a, int64_t l) {
    return &a->layer[a->kept ? l : 0];
}
static inline int64_t acts_segments(const struct acts *a, int64_t n) { return a->segment ? n / a->segment : 1; }
// Lays out activations for max_rows rows. a->layer must have room for L (kept) or 1 entries.
void acts_place(struct acts *a, const struct model_config *c, int64_t max_rows, bool kept, struct slab *s);

// One forward pass. All arrays on the device, n entries each.
struct pass {
    int64_t n;
    const int32_t *ids, *pos; // pos: angle of the rotation; only differences matter
    const int32_t *lo, *hi;   // row i attends to key rows lo[i] <= j < hi[i]
    const int32_t *lo_local;  // lo of layers with a window; NULL when the model has none
    const int32_t *kv_rows;   // where the rows' keys go in the cache
    struct tensor *cache_k, *cache_v; // [L] of [any,G*D]; NULL: the keys are those of the rows themselves
    // Host: how many rows each run of the pass has; NULL: all rows are one run. Runs are stored and attended one after the
    // other, so that a run may put its keys where an earlier one had its own.
    const int64_t *runs;
    struct tensor *beside_k, *beside_v; // [L] of [any,G*D] f32, which receive the rows' keys and values, too; or NULL
    const float *q_scale;     // [n] what the queries of a row are multiplied by; NULL: nothing
    const float *rope_freq;   // instead of the model's, where they depend on the context; else NULL
    struct acts *acts;
    enum precision precision; // of all products
    const struct observer *observer;  // NULL: nobody looks on
    struct dropout drop;      // of a training pass; place is not set
};
// From ids to acts->out.
void model_forward(const struct model *m, const struct pass *p);
// What acts->again says of layer l is computed again, from what was kept, to the same bits.
void model_forward_again(const struct model *m, const struct pass *p, int64_t l);
// logits[n,V] = scale * head(norm(x)), x [n,C]; norm [n,C] receives the normed rows.
void model_head(const struct model *m, struct tensor logits, struct tensor norm, struct tensor x, float scale,
                enum precision precision);

// Buffers of a backward pass, all of them gradients but norm and glu, which are made again.
struct back {
    struct tensor dx;            // [n,C]    of the residual stream, from the last layer down to the embedding
    struct tensor norm, dnorm;   // [n,C]    a norm's output and its gradient; dnorm that of the head's input too
    struct tensor glu;           // [n,F]    first the product, then its gradient; with experts [n*used,F]
    struct tensor dglu, sorted;  // [n*used,F], [n*used,C] with experts: the product's gradient, and rows in their order
    struct tensor droutes;       // [n,E]
    float *other;                // [L][n] what balances experts and holds routers small, a loss (backend.h, route_back)
    struct tensor balance;       // [L*balances,E]: see route_back
    int64_t balances;            // rows of it a layer: none, or one for each segment
    float z_loss;
    struct tensor dattended, dq; // [n,H*D]
    struct tensor dk, dv;        // [n,G*D]
    struct tensor dq_raw, dk_raw; // before their norm, where they have one
    bool fresh;                  // gradients of matrices are written, not added to
};
// a is placed before: what is made again lies where forward made it.
void back_place(struct back *b, const struct model_config *c, const struct acts *a, int64_t max_rows, struct slab *s);
// The mirror of layers lo to hi - 1: b->dx holds d loss/d the stream that leaves them on entry, that it enters them on return; all of
// model_forward from its layers L - 1 to 0 in as many calls, the last of which ends with d loss/d embedded rows. ADDS
// to the gradients of all layer weights, by segments. Overwrites gate and up of every layer. The embedding is the
// caller's.
void model_backward(const struct model *m, const struct pass *p, struct back *b, int64_t segment, int64_t lo, int64_t hi);

// The copy of parameter i that products read: bf16 while training in bf16, else the weights themselves.
static inline struct tensor model_product_weight(const struct model *m, int i) {
    const struct param *p = &m->params[i];
    return tensor_present(&p->w16) ? p->w16 : p->w;
}
// Of the products of a training step.
static inline enum precision model_precision(const struct model *m) {
    return m->compute == DTYPE_BF16 ? PRECISION_BF16 : PRECISION_F32;
}
// What is dropped of the pass's rows: of the embedding, of the probabilities of layer l's attention, or of what a branch adds.
enum drop_place { DROP_EMBEDDING, DROP_PROBABILITIES, DROP_ATTENTION, DROP_FEED_FORWARD, DROP_PLACES };
static inline struct dropout pass_drop(const struct pass *p, int64_t l, enum drop_place what) {
    struct dropout d = p->drop;
    d.place = UINT64_C(0x64726f70) << 32 | (uint64_t)(l * DROP_PLACES + what) << 16; // heads below; no stream of the loader
    return d;
}
static inline struct tensor tensor_first(struct tensor t, int64_t n) { return tensor_rows(t, 0, n); }

double config_depth(const struct model_config *c, double power); // (layers / base)^power
// Rows, columns and matrices of a layer tensor.
void layer_tensor_shape(const struct model_config *c, enum layer_tensor t, int64_t *mats, int64_t *rows, int64_t *cols);
// Its GGUF name behind "blk.N.".
const char *layer_tensor_name(enum layer_tensor t);
// angle of pair j, j < rotated/2, per position, in a context of ctx tokens; divisors: as in struct model.
void rope_frequencies(const struct model_config *c, bool local, float *const divisors[2], int64_t ctx, float *freq);
// The names of the tensors with divisors, short and long; NULL where the model has none.
void rope_divisor_names(const struct model_config *c, const char *names[2]);
static inline bool param_is_vector(const struct param *p) { return p->init_std == 0; }

// Every tensor of the table is in the file with its shape, and nothing else is, but "optimizer.*" and "lehr.seal".
MUST_USE bool params_check_file(const struct model_config *c, const struct model_file *f, struct err *err);

#endif
