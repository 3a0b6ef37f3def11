// model: transformers, written once for all backends and families.
//
// Glossary, used in code, comments and tests:
//   n rows of a batch (tokens)   T tokens of a sequence   C channels   L layers   H query heads   G key/value heads
//   D head size   F feed-forward width   V vocabulary
//
// A family is one row of a table: the GGUF name, how its rope pairs lie, which multipliers it has. A model is a
// config and a table of parameters; forward.c is one function for training, prompt reading and decoding, backward.c is
// its mirror. What differs is only where keys and values lie (the rows themselves, or a cache) and whether the
// activations of a layer are kept.
//
// Block (pre-norm; Llama, Touvron et al. 2023; multipliers of Granite / PowerLM, Shen et al. 2024, table 1):
//   x  = m_emb * embed[id]
//   x += m_res * Wo attend(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x)) * softmax scale m_attn
//   x += m_res * Wdown (silu(Wgate norm(x)) * Wup norm(x))
//   logits = head norm(x) / logit_divisor
#ifndef LEHR_MODEL_H
#define LEHR_MODEL_H

#include "backend.h"
#include "core/core.h"
#include "formats/formats.h"

struct family {
    const char *name;       // general.architecture in GGUF: "llama", "granite"
    enum rope_pairs pairs;  // of the GGUF tensors
    bool multipliers;       // reads and writes <arch>.embedding_scale, .attention.scale, .residual_scale, .logit_scale
    const char *help;
};
extern const struct family families[];
extern const int family_count;
const struct family *family_find(const char *name); // NULL when unknown

struct model_config {
    const struct family *family;
    int64_t C, L, H, G, D, F, V;
    int64_t ctx;        // longest sequence the model was made for
    bool tied;          // head is the embedding
    float rope_base, norm_eps;
    float m_emb, m_attn, m_res, logit_divisor; // 1, 1/sqrt(D), 1, 1 for llama
    // muP (methods B.2): width ratio m_width = C / base_width. Hidden matrices: init std/sqrt(m_width), learning rate
    // / m_width; matrices that write to the residual stream also / sqrt(2L). Not in GGUF: only training reads it.
    float init_std, base_width;
    bool mup;
};
// Numbers of a size name ("1M", "3M", "10M", "30M", "70M", "125M", "350M", "1B", "3B") for a family and a vocabulary; false names the
// sizes. By one rule; the result may then be overridden field by field and goes through config_check.
MUST_USE bool config_from_size(struct model_config *c, const struct family *family, const char *size, int64_t vocab,
                               int64_t ctx, struct err *err);
// For a model made from scratch: fields that are 0 among H, G, D, F, rope_base, norm_eps, init_std and base_width by the
// size rule (an override of C sets H, G, D and F to 0 first), then what always follows: mup and the multipliers.
void config_derive(struct model_config *c);
MUST_USE bool config_check(const struct model_config *c, struct err *err); // every bound a forward pass relies on
MUST_USE bool config_read(struct model_config *c, const struct model_file *f, struct err *err);
void config_write(const struct model_config *c, struct gguf_out *o); // general.architecture, general.name, <arch>.*
int64_t config_params(const struct model_config *c);     // all weights; a tied head counts once
double config_flops_per_token(const struct model_config *c, int64_t T); // forward + backward: 6 N + 6 L H D T (causal halved)

// One parameter: the row from which allocation, initialisation, optimizer, files and reports follow.
struct param {
    char name[65];         // GGUF name: "blk.0.attn_q.weight"
    int64_t rows, cols;    // [out, in]; norms are [1, C]
    float init_std;        // 0: ones (a norm)
    float lr_scale;        // muP: 1 or 1/m_width
    bool decay;            // weight decay applies (matrices)
    struct tensor w;       // f32 ROWS when trainable; else what weight_load gave
    struct tensor w16;     // bf16 compute copy when training in bf16, else absent
    struct tensor grad;    // f32, trainable models only
    bool owned;            // w.data was allocated by weight_load
};

struct layer { // indices into model.params
    int attn_norm, q, k, v, o, ffn_norm, gate, up, down;
};

struct model {
    struct model_config config;
    const struct backend *backend;
    struct param *params;
    int n_params;
    struct layer *layers;
    int embed, out_norm, head; // head == embed when tied
    float *rope_freq;          // device, D/2
    bool trainable;
    enum dtype compute;        // F32 or BF16: which copy products read when trainable
    void *weights_block, *grads_block; // one allocation each, in table order, when trainable
    size_t weights_bytes, grads_bytes;
};

// The table of names and shapes alone, for planning: same order as in a model. Free with mem_free.
struct param *config_params_table(const struct model_config *c, int *count);

// From a file, for running: weights stay in the map where the backend can use them, so the file must outlive the model.
// Every tensor is checked by name, shape and dtype. NULL on failure.
struct model *model_load(const struct model_file *f, const struct backend *b, struct err *err);
// For training: f32 weights and gradients, initialised from seed (param i: stream i). compute BF16 keeps a bf16 copy for
// products.
struct model *model_new(const struct model_config *c, const struct backend *b, enum dtype compute, uint64_t seed,
                        struct err *err);
// Fills a trainable model's weights from a file of the same config (checkpoint, or a model to continue).
MUST_USE bool model_read_weights(struct model *m, const struct model_file *f, struct err *err);
void model_refresh_copies(struct model *m); // bf16 copies from the f32 weights
void model_free(struct model *m);
// Declares and writes all parameters: matrices as `matrices` (rows that are no multiple of its block fall back by
// dtype_that_divides, told in notes), norms as F32. model_declare also writes the keys general.file_type and, for block formats,
// general.quantization_version, so it comes after the caller's own keys and before any other tensor. model_write_data
// asserts that weights lie as ROWS: those of a trainable model do.
void model_declare(const struct model *m, enum dtype matrices, struct gguf_out *o, struct text *notes);
void model_write_data(const struct model *m, enum dtype matrices, struct gguf_out *o);

// --- running -----------------------------------------------------------------------------------------------------

// A session: one KV cache and the activations to feed it. Not shared between threads.
struct session_options {
    int64_t ctx;        // capacity in tokens; 0: the model's
    int64_t chunk;      // rows per forward pass when reading a prompt; 0: 256
    int64_t all_logits; // rows of logits kept for LOGITS_ALL; 0: only the last row is ever asked for
    enum dtype kv;      // F32, F16 or BF16 (0 = F32)
};
struct session;
size_t session_bytes(const struct model *m, const struct session_options *o); // what session_new allocates
struct session *session_new(const struct model *m, const struct session_options *o, struct err *err);
void session_free(struct session *s);
int64_t session_length(const struct session *s);   // tokens in the cache
int64_t session_capacity(const struct session *s);
void session_rewind(struct session *s, int64_t length); // forget all after `length` tokens; length <= session_length
// Feeds n ids after what is there and returns host logits (already divided by logit_divisor), valid until the next
// feed: the last row [V], or all n rows [n,V] (then n <= all_logits). NULL with a sentence when the context is full
// or an id is outside the vocabulary; nothing was fed then. The result does not depend on how a text is cut into feeds.
enum logits_wanted { LOGITS_NONE, LOGITS_LAST, LOGITS_ALL }; // NONE returns a non-NULL pointer to nothing
const float *session_feed(struct session *s, const int32_t *ids, int64_t n, enum logits_wanted want, struct err *err);

// --- training ----------------------------------------------------------------------------------------------------

// A micro-batch: `rows` = sequences * T. Host arrays of rows entries. targets: -1 is not scored. doc_start[i]: first row
// of the same sequence that row i may see (start of its document, or of its sequence).
struct train_batch {
    int64_t rows, T;
    const int32_t *ids, *targets, *doc_start;
};
// Activations kept for backward, sized for max_rows of sequences of T, or for fewer sequences when their logits would pass
// 64 MB: then train_loss works a micro-batch off in groups, which changes no bit.
struct train_state;
size_t train_state_bytes(const struct model_config *c, int64_t max_rows, int64_t T);
struct train_state *train_state_new(struct model *m, int64_t max_rows, int64_t T, struct err *err);
void train_state_free(struct train_state *t);
void train_zero_grads(struct train_state *t);
// Forward and backward: ADDS grad_scale * d(sum of losses)/dw to the gradients; returns the sum of losses (nats).
// grad_scale 0: forward only (evaluation). losses (may be NULL): per row, host.
double train_loss(struct train_state *t, const struct train_batch *b, float grad_scale, float *losses);

#endif
