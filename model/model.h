// model: transformers, written once for all backends and families.
//
// Glossary, used in code, comments and tests:
//   n rows of a batch (tokens)   T tokens of a sequence   C channels   L layers   H query heads   G key/value heads
//   D head size   F feed-forward width   V vocabulary
//
// A family is one row of a table: the GGUF name and the switches of its block. A model is a config and a table of
// parameters; forward.c is one function for training, prompt reading and decoding, backward.c is its mirror for the
// families that train. What differs is only where keys and values lie (the rows themselves, or a cache) and whether
// the activations of a layer are kept.
//
// Block (pre-norm; Llama, Touvron et al. 2023; multipliers of Granite / PowerLM, Shen et al. 2024, table 1):
//   x  = m_emb * embed[id]
//   x += m_res * Wo attend(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x)) * softmax scale m_attn
//   x += m_res * Wdown (silu(Wgate norm(x)) * Wup norm(x))
//   logits = head norm(x) / logit_divisor
// What a family may change: LayerNorm for RMSNorm, with or without weights; a norm of queries and keys; a norm behind
// each branch, instead of the one before it (olmo2) or besides (gemma2, gemma3); both branches from the stream as it
// entered (phi2, command-r); biases; other gates than SiLU, or none (gpt2); positions that are learned (gpt2), turn a
// part of a head, or are not there in some layers (smollm3); layers that see a window of the text only; capped scores
// and logits; an attention sink (gpt-oss); a mixture of experts for the feed-forward, with a shared one beside it.
#ifndef LEHR_MODEL_H
#define LEHR_MODEL_H

#include "backend.h"
#include "core/core.h"
#include "formats/formats.h"

// Tensors of a layer, in the order of the table of parameters: field of struct layer, GGUF name behind "blk.N.", rows,
// columns (letters below; 1 row: a vector), and what a new one is filled with. A file may hold q, k and v as one
// attn_qkv, gate and up as one ffn_up: then parameters are rows of that tensor.
#define LAYER_TENSORS(X)                                                                                   \
    X(attn_norm, "attn_norm.weight", ONE, C, ONES)                                                         \
    X(attn_norm_bias, "attn_norm.bias", ONE, C, ZEROS)                                                     \
    X(q, "attn_q.weight", HD, C, HIDDEN)                                                                   \
    X(k, "attn_k.weight", GD, C, HIDDEN)                                                                   \
    X(v, "attn_v.weight", GD, C, HIDDEN)                                                                   \
    X(q_bias, "attn_q.bias", ONE, HD, ZEROS)                                                               \
    X(k_bias, "attn_k.bias", ONE, GD, ZEROS)                                                               \
    X(v_bias, "attn_v.bias", ONE, GD, ZEROS)                                                               \
    X(q_norm, "attn_q_norm.weight", ONE, QN, ONES)                                                         \
    X(k_norm, "attn_k_norm.weight", ONE, KN, ONES)                                                         \
    X(o, "attn_output.weight", C, HD, WRITER)                                                              \
    X(o_bias, "attn_output.bias", ONE, C, ZEROS)                                                           \
    X(sinks, "attn_sinks.weight", ONE, H, ZEROS)                                                           \
    X(attn_post, "post_attention_norm.weight", ONE, C, ONES)                                               \
    X(ffn_norm, "ffn_norm.weight", ONE, C, ONES)                                                           \
    X(ffn_norm_bias, "ffn_norm.bias", ONE, C, ZEROS)                                                       \
    X(router, "ffn_gate_inp.weight", E, C, HIDDEN)                                                         \
    X(router_bias, "ffn_gate_inp.bias", ONE, E, ZEROS)                                                     \
    X(gate, "ffn_gate.weight", F, C, HIDDEN)                                                               \
    X(up, "ffn_up.weight", F, C, HIDDEN)                                                                   \
    X(down, "ffn_down.weight", C, F, WRITER)                                                               \
    X(gate_exps, "ffn_gate_exps.weight", F, C, HIDDEN)                                                     \
    X(up_exps, "ffn_up_exps.weight", F, C, HIDDEN)                                                         \
    X(down_exps, "ffn_down_exps.weight", C, F, WRITER)                                                     \
    X(gate_exps_bias, "ffn_gate_exps.bias", E, F, ZEROS)                                                   \
    X(up_exps_bias, "ffn_up_exps.bias", E, F, ZEROS)                                                       \
    X(down_exps_bias, "ffn_down_exps.bias", E, C, ZEROS)                                                   \
    X(shared_route, "ffn_gate_inp_shexp.weight", ONE, C, ZEROS)                                            \
    X(gate_shared, "ffn_gate_shexp.weight", FS, C, HIDDEN)                                                 \
    X(up_shared, "ffn_up_shexp.weight", FS, C, HIDDEN)                                                     \
    X(down_shared, "ffn_down_shexp.weight", C, FS, WRITER)                                                 \
    X(up_bias, "ffn_up.bias", ONE, F, ZEROS)                                                               \
    X(down_bias, "ffn_down.bias", ONE, C, ZEROS)                                                           \
    X(ffn_post, "post_ffw_norm.weight", ONE, C, ONES)

#define LAYER_ENUM(field, name, rows, cols, fill) AT_##field,
enum layer_tensor { LAYER_TENSORS(LAYER_ENUM) LAYER_TENSOR_COUNT };
#define LAYER_FIELD(field, name, rows, cols, fill) int field;
struct layer { // indices into model.params, -1 where the model has no such tensor
    LAYER_TENSORS(LAYER_FIELD)
};
static_assert(sizeof(struct layer) == LAYER_TENSOR_COUNT * sizeof(int), "a layer names each of its tensors once");
#define HAS(field) (UINT64_C(1) << AT_##field) // a set of layer tensors
static_assert(LAYER_TENSOR_COUNT <= 64, "a set of layer tensors is one word");

struct family {
    const char *name;       // general.architecture in GGUF: "llama", "granite"
    const char *help;
    enum rope_pairs pairs;  // of the GGUF tensors
    bool trains;            // backward.c mirrors all of its switches
    bool multipliers;       // reads and writes <arch>.embedding_scale, .attention.scale, .residual_scale, .logit_scale
    bool logits_times;      // reads and writes <arch>.logit_scale, which multiplies
    bool root_embedding;    // embeddings times sqrt(C)
    bool layer_norm;        // LayerNorm, else RMSNorm
    bool bare_norm;         // norms have no weights
    bool post_named;        // the norm before the feed-forward is called post_attention_norm
    bool parallel;          // both branches read the stream that enters the layer
    bool head_bias;         // the head may have a bias
    bool clamps;            // reads <arch>.attention.clamp_kqv
    bool learned_positions; // position_embd.weight, else rope
    bool wide_qk_norm;      // one norm over all heads, else over each
    bool renormalize;       // weights of the chosen experts sum to one
    enum glu_kind act;
    int local_period;       // layers with a window: all but each local_period-th; 0: all; 1: none, a window is refused
    bool local_plain_rope;  // local layers have their own base and are never stretched
    bool local_rope_only;   // where there is a window, layers that see the whole text have no rope
    int bare_period;        // every so-manieth layer has no rope; 0: all have
    bool by_position;       // reads <arch>.attention.temperature_scale: queries grow with the position
    bool yarn_exact;        // YaRN's ramp begins and ends between pairs
    int64_t window;         // when the file does not say
    float local_base;       // of rope in local layers, when the file does not say; 0: that of the others
    bool capped;            // reads caps of scores and logits
    float score_cap, logit_cap; // when the file does not say
    uint64_t needs, may;    // layer tensors
};
extern const struct family families[];
extern const int family_count;
const struct family *family_find(const char *name); // NULL when unknown

// How rope's frequencies are stretched. LINEAR: divided by factor. YARN: low ones divided, high ones kept, between
// them a ramp (Peng et al. 2023, eq. 20 to 22). Divisors of each pair (Llama 3) are a tensor, rope_freqs.weight.
// Two kinds depend on the context in use. That is the capacity of the session, not the length of the text so far: keys
// in a cache are turned already, and no result may depend on how a text is fed. LONG (Ding et al. 2024): divisors in a
// tensor for contexts up to rope_ctx and another for longer ones. DYNAMIC: a context beyond the model's raises the base.
enum rope_scaling { SCALING_NONE, SCALING_LINEAR, SCALING_YARN, SCALING_LONG, SCALING_DYNAMIC };

// How what each layer adds, and what is learned there, changes with depth (methods B.4). A value is
// factor * (layers / base)^power, base being 0 in the config: 2 layers.
struct depth_row {
    const char *name;
    double residual, rate, eps; // powers of m_res, of the rate of hidden matrices, and of Adam's eps there
    double factor;              // of m_res
    bool small_writers;         // matrices that write to the stream start / sqrt(2 L)
    const char *help, *source;
};
extern const struct depth_row depth_rules[]; // the first is the default
extern const int depth_rule_count;
const struct depth_row *depth_rule_find(const char *name); // NULL when unknown

enum { LAYERS_MAX = 1024, EXPERTS_MAX = 1024 };
static_assert(LAYERS_MAX % 64 == 0, "one bit a layer");

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
    const struct depth_row *depth; // NULL: the first
    int64_t base_layers;           // 0: 2
    // What a file may change; all zero is the family's plain form.
    uint64_t more, less; // layer tensors besides, and without some of, the family's needs
    bool joined_qkv, joined_gate_up; // as one tensor in the file
    int64_t unturned;   // last columns of a head that rope leaves alone
    int64_t E, used;    // experts, and how many a row goes through; 0: none. F is an expert's width then
    int64_t FS;         // width of the shared expert, 0: none
    bool parallel;      // both branches read the stream that enters the layer
    bool head_bias;     // the file has output.bias
    float temperature;  // queries of position p are multiplied by 1 + temperature ln(1 + floor(p / rope_ctx)); 0: are not
    float clamp;        // queries, keys and values are held to so much; 0: they are not
    uint64_t bare[LAYERS_MAX / 64]; // bit l: layer l has no rope
    int64_t window;     // a local layer sees so many tokens, itself included; 0: no layer is local
    uint64_t local[LAYERS_MAX / 64]; // bit l: layer l is local
    float rope_base_local;           // of local layers
    float score_cap, logit_cap;      // 0: none
    enum rope_scaling scaling;
    float rope_factor, yarn_fast, yarn_slow;
    float rope_magnitude; // what is turned is multiplied by it; 0 means 1
    int64_t rope_ctx;     // the context before stretching
    bool rope_divisors;   // the file has rope_freqs.weight
    int64_t exit_layer;   // norm and head have learned to read the stream behind so many layers, too; 0: have not. Changes nothing that is computed
};
// One sentence on what rope does in a context of ctx tokens, where that depends on it; else false.
bool config_rope_note(const struct model_config *c, int64_t ctx, struct text *note);
static inline uint64_t config_tensors(const struct model_config *c) { return (c->family->needs & ~c->less) | c->more; }
static inline int64_t config_rotated(const struct model_config *c) {
    return c->family->learned_positions ? 0 : c->D - c->unturned;
}
static inline bool config_is_local(const struct model_config *c, int64_t l) {
    return c->window > 0 && (c->local[l / 64] >> (l % 64) & 1);
}
static inline bool config_is_bare(const struct model_config *c, int64_t l) { return c->bare[l / 64] >> (l % 64) & 1; }
static inline bool config_rope_by_context(const struct model_config *c) {
    return c->scaling == SCALING_LONG || c->scaling == SCALING_DYNAMIC;
}
// Local layers of some families keep the rope that the others stretch.
static inline bool config_is_stretched(const struct model_config *c, int64_t l) {
    return !(c->family->local_plain_rope && config_is_local(c, l));
}
// False with the switch that backward.c does not mirror: such a model runs but does not train.
MUST_USE bool config_trains(const struct model_config *c, struct err *err);
// Numbers of a size name ("1M", "3M", "10M", "30M", "70M", "125M", "350M", "1B", "3B") for a family and a vocabulary; false names the
// sizes. By one rule; the result may then be overridden field by field and goes through config_check.
MUST_USE bool config_from_size(struct model_config *c, const struct family *family, const char *size, int64_t vocab,
                               int64_t ctx, struct err *err);
const char *config_size_name(int i); // of the sizes in ascending order; NULL behind the last
// For a model made from scratch: fields that are 0 among H, G, D, F, rope_base, norm_eps, init_std and base_width by the
// size rule (an override of C sets H, G, D and F to 0 first), then what always follows: mup and the multipliers.
void config_derive(struct model_config *c);
MUST_USE bool config_check(const struct model_config *c, struct err *err); // every bound a forward pass relies on
MUST_USE bool config_read(struct model_config *c, const struct model_file *f, struct err *err);
void config_write(const struct model_config *c, struct gguf_out *o); // general.architecture, general.name, <arch>.*
int64_t config_params(const struct model_config *c);     // all weights; a tied head counts once
int64_t config_params_active(const struct model_config *c); // those that a row meets: of experts, the ones in use
double config_flops_per_token(const struct model_config *c, int64_t T); // forward + backward: 6 N + 6 L H D T (causal halved)

// One parameter: the row from which allocation, initialisation, optimizer, files and reports follow.
struct param {
    char name[65];         // GGUF name of the tensor it is, or is a part of: "blk.0.attn_q.weight"
    int64_t rows, cols;    // [out, in]; norms and biases are [1, C]
    int64_t mats;          // experts: so many matrices of that shape; else 1
    int64_t part, whole;   // of a joined tensor: rows from `part` on, of `whole`; else 0, 0
    float init_std;        // 0: a vector, ones for a norm, zeros for a bias
    float lr_scale;        // muP: 1 or 1/m_width, times the depth rule's
    float eps_scale;       // of the depth rule
    bool decay;            // weight decay applies (matrices)
    bool exact;            // its products are never rounded (routers)
    struct tensor w;       // f32 ROWS when trainable, matrices one below the other; else in the file, then what weight_load gave
    struct tensor w16;     // bf16 compute copy when training in bf16, else absent
    struct tensor grad;    // f32, trainable models only
    bool owned;            // w.data was allocated by weight_load
    struct tensor *experts; // [mats] what products read when mats > 1: instead of w or, when trainable, views of w or w16
    bool *experts_owned;    // [mats]
};

struct model {
    struct model_config config;
    const struct backend *backend;
    struct param *params;
    int n_params;
    struct layer *layers;
    int embed, positions, out_norm, out_norm_bias, head, head_bias; // head == embed when tied; -1: none
    float *rope_freq, *rope_freq_local; // device, rotated/2; of local layers
    float *rope_divisors[2];            // host, rotated/2 or NULL: of short contexts (all but SCALING_LONG), of long ones
    bool trainable;
    enum dtype compute;        // F32 or BF16: which copy products read when trainable
    void *weights_block, *grads_block; // one allocation each, in table order, when trainable
    size_t weights_bytes, grads_bytes;
    int32_t *expert_use;           // host, [L*E]: rows of the last step that chose each expert; NULL unless trainable with experts
    const struct model_file *file; // of a model for running
    struct model *whole;           // of a prefix: the model it is a part of; else NULL
    int unsettled;                 // params from here on lie in the file
};

// The table of names and shapes alone, for planning: same order as in a model. Free with mem_free.
struct param *config_params_table(const struct model_config *c, int *count);

// From a file, for running. Every tensor is checked by name, shape and dtype. NULL on failure. The file must outlive the
// model: weights stay in the map until model_settle, where the backend can read them there, and so a short prompt is read,
// and the first token said, while packing them would only begin. A session settles its model before anything else.
struct model *model_load(const struct model_file *f, const struct backend *b, struct err *err);
// Gives the backend all weights; nothing is left to do the second time. False when memory or a type is missing.
MUST_USE bool model_settle(struct model *m, struct err *err);
size_t model_unsettled_bytes(const struct model *m); // that model_settle will take
// The first so many layers of m, fewer than it has, with its norm and head: a model for running that reads m's weights, takes no
// memory beside m, settles m when it is settled, and lives no longer than m. What it says is what a file of these layers says.
struct model *model_prefix(struct model *m, int64_t layers);
// For training (families that train only: config_trains): f32 weights and gradients, initialised from seed (param i:
// stream i). compute BF16 keeps a bf16 copy for products, which are of PRECISION_BF16, forward and backward.
struct model *model_new(const struct model_config *c, const struct backend *b, enum dtype compute, uint64_t seed,
                        struct err *err);
// Fills a trainable model's weights from a file of the same config (checkpoint, or a model to continue).
MUST_USE bool model_read_weights(struct model *m, const struct model_file *f, struct err *err);
void model_refresh_copies(struct model *m); // bf16 copies from the f32 weights
// A second copy of the weights of a trainable model, as they were at the last model_shadow_take: what model_declare and
// model_write_data need, for a file that is written while m learns on. It lives no longer than m. NULL on failure.
struct model *model_shadow(const struct model *m, struct err *err);
void model_shadow_take(struct model *shadow, const struct model *m);
void model_shadow_free(struct model *shadow); // NULL is fine
void model_free(struct model *m);
// Declares and writes all parameters: matrices as `matrices` (rows that are no multiple of its block fall back by
// dtype_that_divides, told in notes), norms as F32. model_declare also writes the keys general.file_type and, for block formats,
// general.quantization_version, so it comes after the caller's own keys and before any other tensor. model_write_data
// asserts that weights lie as ROWS: those of a trainable model do.
void model_declare(const struct model *m, enum dtype matrices, struct gguf_out *o, struct text *notes);
void model_write_data(const struct model *m, enum dtype matrices, struct gguf_out *o);

// --- mixes of dtypes (mixes.c) --------------------------------------------------------------------------------------

// What --quantize means by a name. A row: rules in order, the first that fits a tensor decides, else it gets `base`.
enum mix_role { MIX_NONE, MIX_ANY, MIX_OTHER, MIX_EMBEDDING, MIX_OUTPUT, MIX_VALUES, MIX_KEYS, MIX_ATTN_OUT, MIX_DOWN };
enum mix_when {
    WHEN_ALWAYS,
    WHEN_FIRST_2, WHEN_FIRST_4, WHEN_FIRST_8TH, WHEN_FIRST_16TH, // of the tensors of that role, in order of layers
    WHEN_FIRST_8TH_WEIGHED, WHEN_FIRST_8TH_UNWEIGHED,            // with and without an importance matrix
    WHEN_MORE_BITS,   // the first and the last eighth, and every third layer between
    WHEN_SHARED_KEYS, // four query heads or more to a key head
    WHEN_EIGHT_EXPERTS, WHEN_NOT_EIGHT_EXPERTS,
    WHEN_STACKED      // a matrix per expert
};
enum { MIX_RULES = 6 };
struct mix {
    const char *name, *also, *help; // also: another name, may be NULL
    int32_t file_type;              // general.file_type
    enum dtype base;
    bool pure;                      // base everywhere, no rules
    bool needs_importance, wants_importance; // is of no use without a matrix; is much better with one
    struct { enum mix_role role; enum mix_when when; enum dtype dtype; } rule[MIX_RULES];
};
extern const struct mix mixes[];
extern const int mix_count;
const struct mix *mix_find(const char *name); // NULL when unknown; upper and lower case are alike
bool mix_may_change(const struct file_tensor *t); // false for norms, biases, routers, learned positions
// The dtype of each of the n tensors of a model, what may not change included. weighed: there is an importance matrix.
void mix_choose(const struct mix *m, const struct model_config *c, bool weighed,
                const struct file_tensor *const *tensors, size_t n, enum dtype *to);

// --- importance matrices (imatrix.c) --------------------------------------------------------------------------------

// For every matrix of the layers: the mean square of what enters each column, over a text, per expert too. Where it is
// large, an error of a weight costs much; quantizers take it as a weight. Experts that no token reached, and matrices
// without an entry, weigh all columns alike.
struct imatrix_entry {
    char name[65];
    size_t values, counts; // columns times matrices; matrices, or 1 for all together
    double *sum;           // [values] of squares
    double *count;         // [counts] rows seen
    float *mean;           // [values]
};
struct imatrix {
    struct imatrix_entry *entries;
    size_t n;
    int64_t chunks, chunk_tokens; // as far as known
    char *dataset;                // owned; the text it was made of, or NULL
};
// What a file is, by its content: none when it is neither an importance matrix nor a text.
enum imatrix_kind { IMATRIX_NONE, IMATRIX_GGUF, IMATRIX_LEGACY, IMATRIX_TEXT };
MUST_USE bool imatrix_recognise(const char *path, enum imatrix_kind *kind, struct err *err);
// Reads llama.cpp's GGUF format or its older binary one. NULL on failure; every size is checked.
struct imatrix *imatrix_open(const char *path, struct err *err);
void imatrix_free(struct imatrix *m); // NULL is allowed
MUST_USE bool imatrix_write(const struct imatrix *m, const char *path, struct err *err); // llama.cpp's GGUF format
const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name); // NULL when absent
struct session;
// From a text, in whole chunks of `chunk` tokens (what is left over is not looked at), each begun anew; the first token
// of a chunk is replaced by bos when that is not negative. The session holds a chunk, is forgotten and not observed
// afterwards. each may be NULL. NULL on failure.
struct imatrix_text {
    const int32_t *ids;
    int64_t n, chunk;
    int32_t bos;
    void (*each)(void *arg, int64_t done, int64_t chunks);
    void *arg;
};
struct imatrix *imatrix_collect(const struct model *m, struct session *s, const struct imatrix_text *text,
                                struct err *err);

// --- exporting (export.c) ------------------------------------------------------------------------------------------

// A clean GGUF from any open file: its keys and tensors without what a checkpoint, a split or a folder has beside them.
struct export_options {
    const struct mix *mix; // NULL: tensors as they are
    const struct imatrix *importance;                 // NULL: none. Goes with a mix
    const char *importance_path;                      // for the keys that tell what was used
    void (*tokenizer)(void *arg, struct gguf_out *o); // writes the tokenizer.ggml.* keys; NULL: those of the file
    void *arg;
    void (*each)(void *each_arg, size_t done, size_t of); // bytes of the source; may be NULL
    void *each_arg;
};
MUST_USE bool model_export_gguf(const struct model_file *f, const char *path, const struct export_options *options,
                                struct text *notes, struct err *err);
// Loads what was written and feeds it and the source the same ids: how far are the logits? kl: mean of KL(source ||
// written) in nats per position; most: largest difference of a logit.
struct export_check {
    bool identical; // bit for bit
    double kl, most;
    int64_t positions, same_top;
};
MUST_USE bool model_export_check(const struct model_file *source, const char *written, const struct backend *b,
                                 struct export_check *check, struct err *err);

// --- running -----------------------------------------------------------------------------------------------------

// A session: one KV cache and the activations to feed it. Not shared between threads.
struct session_options {
    int64_t ctx;        // capacity in tokens; 0: the model's
    int64_t chunk;      // rows per forward pass when reading a prompt; 0: 512 to 2048, by what they take
    int64_t all_logits; // rows of logits kept for LOGITS_ALL; 0: only the last row is ever asked for
    int64_t tree;       // most nodes of a tree of session_feed_tree; 0: none is ever fed
    enum dtype kv;      // of the cache: F32 (0), F16, BF16, Q8_0 or Q4_0
    const enum dtype *values; // of the cache's values, when not that of its keys; NULL: the same
    bool exact;               // every product in f32, those of a prompt too
    bool hidden;              // what the head of the model read is asked for, too
};
struct session;
// What session_new allocates, and how much of it is cache. The cache is memory that comes as it is used.
size_t session_bytes(const struct model *m, const struct session_options *o);
size_t session_cache_bytes(const struct model *m, const struct session_options *o);
// Fills in o->ctx when it is 0: the length the model was made for, or what fits into free_bytes (0: unknown) with
// a tenth left over. False when a context that was asked for cannot fit. line: a sentence of what was chosen and why.
MUST_USE bool session_choose_context(const struct model *m, struct session_options *o, size_t free_bytes,
                                     struct text *line, struct err *err);
struct session *session_new(struct model *m, const struct session_options *o, struct err *err);
void session_free(struct session *s);
// Settles the model, which the second feed, or a first one longer than a chunk, would do by itself.
MUST_USE bool session_settle(struct session *s, struct err *err);
int64_t session_length(const struct session *s);   // tokens in the cache
int64_t session_capacity(const struct session *s);
int64_t session_vocab(const struct session *s); // V: values in a row of logits; may exceed the tokenizer's (padding)
void session_rewind(struct session *s, int64_t length); // forget all after `length` tokens; length <= session_length
// Feeds n ids after what is there and returns host logits (already divided by logit_divisor), valid until the next
// feed: the last row [V], or all n rows [n,V] (then n <= all_logits). NULL with a sentence when the context is full
// or an id is outside the vocabulary; nothing was fed then.
// The text of others is fed as FEED_PROMPT, whose products may round to bf16 (backend.h, PRECISION_BF16; not when the
// session is exact), what the model itself chose, or a draft proposed, as FEED_GENERATED, in f32. Within each the result
// does not depend on how a text is cut into feeds; which tokens are prompt belongs to the text.
enum logits_wanted { LOGITS_NONE, LOGITS_LAST, LOGITS_ALL }; // NONE returns a non-NULL pointer to nothing
enum feed { FEED_PROMPT, FEED_GENERATED };
const float *session_feed(struct session *s, const int32_t *ids, int64_t n, enum feed feed, enum logits_wanted want,
                          struct err *err);
// With options.hidden: what the head read, the normed stream, of each row whose logits the last session_feed returned, host [n,C].
int64_t session_width(const struct session *s); // C
const float *session_hidden(const struct session *s);
// The ids of the text in the cache, session_length of them; valid as long as the session, and may be fed again.
const int32_t *session_ids(const struct session *s);

// A tree of texts that might follow. ids[0] follows the text and parent[0] is -1; ids[i] follows node parent[i] < i, which is
// i - 1 or one of its ancestors (preorder). Returns host logits [n,V], valid until the next feed: row i has the bits that
// session_feed of the path from the root to i, as FEED_GENERATED, would have given. The text stays as it is. NULL with a
// sentence when the deepest path does not fit in the context, n is beyond `tree`, or an id outside the vocabulary.
const float *session_feed_tree(struct session *s, const int32_t *ids, const int32_t *parent, int64_t n, struct err *err);
// node[0] = 0, node[1], ..., each a child of the one before, becomes part of the text. The tree is that of the
// session_feed_tree just before: any other feed, rewinding and taking forget it.
void session_take(struct session *s, const int32_t *node, int64_t n);
// Shows what enters every product with a matrix of a layer, until called with NULL: x [rows,cols] and chosen (NULL, or
// n_chosen expert numbers, n_chosen / rows for each row) lie on the device and are valid during the call.
struct observer {
    void (*see)(void *arg, int param, struct tensor x, const int32_t *chosen, int64_t n_chosen);
    void *arg;
};
void session_observe(struct session *s, const struct observer *o); // borrowed

// Several texts at once (streams.c): `count` of them, each with room for `length` tokens, one token of each in a pass. The f32
// logits of a text have the bits that session_feed with a cache of F16 gives when it is fed as FEED_GENERATED, token by token.
struct streams;
struct streams *streams_new(struct model *m, int64_t count, int64_t length, struct err *err); // settles the model; NULL on failure
void streams_free(struct streams *s);
void streams_clear(struct streams *s);               // all texts are empty again
void streams_begin(struct streams *s, int64_t text); // what was read of this text is forgotten; its room is not regained
// The next token of every text, each of the vocabulary and with room left. What comes next, host, [count,V], valid until the next
// call: logits or, with `chances`, their softmax.
const float *streams_feed(struct streams *s, const int32_t *ids, bool chances);

// --- training ----------------------------------------------------------------------------------------------------

// A micro-batch: `rows` = sequences * T. Host arrays of rows entries. targets: -1 is not scored. doc_start[i]: first row
// of the same sequence that row i may see (start of its document, or of its sequence).
struct train_batch {
    int64_t rows, T;
    const int32_t *ids, *targets, *doc_start;
};
// What a step makes smaller besides the mean loss; all zero: nothing. Sums are over layers and rows as those of the loss,
// with n the rows of a step, that is 1 / grad_scale, P[e] the mean of expert e's probability, f[e] its share of all choices
// (both 1/E in balance):
//   balance_coef * E * sum over e of f[e] P[e] (Fedus et al. 2021, eq. 4), f a constant, counted
//     SEQUENCE over the row's own sequence: uniform use within every text;
//     GLOBAL   over the whole batch (Qiu et al. 2025, "Demons in the Detail"), so that experts may differ by text. The
//              share is that over the batch up to the end of the row's sequence: what is known by then however the batch is
//              cut, which must show in no bit. The first sequences of a batch are so balanced among few. (The whole batch of the
//              step before would be known too, but routers move faster than that: its experts swing, and a width of 64 was
//              1 nat behind after 64 steps. Where it stays calm, at a width of 128 and a coefficient of .01, experts of code
//              and prose lay .14 bits apart that way, .04 this way, .01 by sequences; after 128 steps, one seed.)
//   router_z * mean of logsumexp(router's logits)^2 (Zoph et al. 2022, eq. 5)
//   head_z * mean of logsumexp(logits)^2 (Chowdhery et al. 2022, section 5), not in the losses that are told
//   exit_weight * the mean loss (head_z included) of norm and head on the stream behind config.exit_layer layers, in the one head
//     that the last layer has, too: LayerSkip's loss (Elhoushi et al. 2024, arXiv 2404.16710) with one exit, in every step, added and not mixed in,
//     and no layer left out; not in the losses that are told. 0 where the config has no exit
enum balance { BALANCE_NONE, BALANCE_GLOBAL, BALANCE_SEQUENCE };
struct objective {
    enum balance balance;
    double balance_coef, router_z, head_z, exit_weight;
};
// What backward needs of a layer is kept, or computed again when its turn comes (Chen et al. 2016): of the first `halves`
// layers gate and up of the feed-forward, of the first `wholes` of these all but what enters the layer.
struct recompute {
    int64_t halves, wholes; // wholes <= halves < L
    double work;            // what that adds, as a share of the operations of a step
};
// Activations for train_loss: of max_rows rows of sequences of T, or of fewer sequences, which are then worked off in
// groups; when a single sequence passes `memory` bytes, with as little recomputation as makes it fit. None of this changes
// a bit. train_state_bytes tells what train_state_new takes (again may be NULL); when that is more than `memory`, it is
// the least there is, train_state_fits has a sentence about it, and train_state_new refuses.
struct train_state;
size_t train_state_bytes(const struct model_config *c, int64_t max_rows, int64_t T, size_t memory, struct recompute *again);
MUST_USE bool train_state_fits(const struct model_config *c, int64_t T, size_t memory, struct err *err);
struct train_state *train_state_new(struct model *m, int64_t max_rows, int64_t T, size_t memory, struct err *err);
void train_state_free(struct train_state *t);
void train_observe(struct train_state *t, const struct observer *o); // of the forward passes to come; borrowed, NULL ends it
// What the next train_loss, and it alone, leaves out: of the embeddings, of attention's probabilities and of what each branch adds. row is that of the first
// row of its batch; the model sets place.
void train_drop(struct train_state *t, struct dropout drop);
void train_zero_grads(struct train_state *t); // for the train_loss that follows: until then matrices keep what they have
// Forward and backward: ADDS grad_scale * d(sum of losses)/dw to the gradients; returns the sum of losses (nats).
// grad_scale 0: forward only (evaluation). losses (may be NULL): per row, host.
double train_loss(struct train_state *t, const struct train_batch *b, float grad_scale, float *losses);
// Views on the device of what the last train_loss left of its last group of rows (a sequence is never cut in two), until the
// next one: the stream that enters layer l (l = L: leaves the last), the stream between its branches, rotated queries and
// keys, mixed values, gate before its nonlinearity. A gradient's pass spoils the gate.
enum train_act { ACT_STREAM, ACT_MID, ACT_QUERIES, ACT_KEYS, ACT_ATTENDED, ACT_GATE };
struct tensor train_activation(const struct train_state *t, enum train_act what, int64_t layer);
// What the steps from here on make smaller.
void train_state_aim(struct train_state *t, const struct objective *o);
// Behind the last micro-batch of a step: who was chosen in it becomes model.expert_use, and what the objective added by its
// balance and router_z is returned. Without it train_zero_grads forgets both.
double train_close_use(struct train_state *t);
// Sum of the losses at the exit, of what train_loss was given since this was asked for last or gradients were zeroed; 0 without an exit.
double train_exit_loss(struct train_state *t);
// The use of the busiest expert over the mean, averaged over layers: 1 is even, E / used the worst; 0 without experts or
// before the first step.
double train_imbalance(const struct model *m);
// Behind the last micro-batch of a step: only now the gradients of a tied embedding and, with an exit, of norm and head are whole.
void train_close_grads(struct train_state *t);

#endif
