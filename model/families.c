// families.c: what makes a family: one row of switches and the set of tensors a layer has.
//
// A row says what the architecture does whatever the file; numbers (window, caps, factors) come from the file's keys
// (config_file.c). `needs` must be there, `may` can be; a tensor in the file that is in neither set is refused by name.
//
// Where llama.cpp and the published model differ, the published model decides: windows of phi3 and of llama (Mistral)
// are kept, as a file that states a window was trained with one.
//
// Sources: the configurations and modelling code published with the models; Gemma 2 (Gemma Team 2024, table 1),
// Gemma 3 (2025, section 2), Qwen 2 and 3, OLMo 2 (2024, section 3), OLMoE (2024), Phi-3 (2024), GPT-2 (Radford et al.
// 2019), MiniCPM (Hu et al. 2024), Granite 3 (2024), Mixtral (Jiang et al. 2024).
#include "model/internal.h"

#include <math.h>
#include <string.h>

#define ATTENTION (HAS(q) | HAS(k) | HAS(v) | HAS(o))
#define GATED (HAS(gate) | HAS(up) | HAS(down))
#define EXPERTS (HAS(router) | HAS(gate_exps) | HAS(up_exps) | HAS(down_exps))
#define PRE_NORMS (HAS(attn_norm) | HAS(ffn_norm))
#define POST_NORMS (HAS(attn_post) | HAS(ffn_post))
#define QK_NORMS (HAS(q_norm) | HAS(k_norm))
#define QKV_BIASES (HAS(q_bias) | HAS(k_bias) | HAS(v_bias))
#define PLAIN (ATTENTION | PRE_NORMS | GATED)

const struct family families[] = {
    {.name = "llama", .help = "Llama 1 to 3, SmolLM, TinyLlama, Mistral, Mixtral, stories", .trains = true,
     .renormalize = true, .needs = PLAIN, .may = QKV_BIASES | HAS(o_bias) | EXPERTS},
    {.name = "granite", .help = "Granite and PowerLM: llama with the four muP multipliers; what ./train makes",
     .trains = true, .multipliers = true, .local_period = 1, .needs = PLAIN},
    {.name = "granitemoe", .help = "Granite and PowerMoE: granite with experts", .multipliers = true, .local_period = 1,
     .renormalize = true, .needs = ATTENTION | PRE_NORMS | EXPERTS},
    {.name = "minicpm", .help = "MiniCPM 1 and 2: llama with multipliers", .multipliers = true, .local_period = 1,
     .needs = PLAIN},
    {.name = "qwen2", .help = "Qwen 2 and 2.5: biases on queries, keys and values", .pairs = ROPE_HALVES,
     .local_period = 1, .needs = PLAIN | QKV_BIASES},
    {.name = "qwen3", .help = "Qwen 3: norms of queries and keys, head by head", .pairs = ROPE_HALVES,
     .local_period = 1, .needs = PLAIN | QK_NORMS},
    {.name = "qwen3moe", .help = "Qwen 3 with experts", .pairs = ROPE_HALVES, .local_period = 1,
     .renormalize = true, .needs = ATTENTION | PRE_NORMS | QK_NORMS | EXPERTS},
    {.name = "gemma", .help = "Gemma 1: GELU gates, scaled embeddings", .pairs = ROPE_HALVES, .act = GLU_GELU,
     .root_embedding = true, .local_period = 1, .needs = PLAIN},
    {.name = "gemma2", .help = "Gemma 2: norms on both sides of a branch, capped scores and logits, every other layer local",
     .pairs = ROPE_HALVES, .act = GLU_GELU, .root_embedding = true, .local_period = 2, .window = 4096, .capped = true,
     .score_cap = 50, .logit_cap = 30, .needs = PLAIN | POST_NORMS},
    {.name = "gemma3", .help = "Gemma 3: norms on both sides and of queries and keys, five of six layers local",
     .pairs = ROPE_HALVES, .act = GLU_GELU, .root_embedding = true, .local_period = 6, .local_plain_rope = true,
     .local_base = 10000, .capped = true,
     .needs = PLAIN | POST_NORMS | QK_NORMS},
    {.name = "olmo2", .help = "OLMo 2: norms behind the branches only, wide norms of queries and keys",
     .pairs = ROPE_HALVES, .wide_qk_norm = true, .local_period = 4, .local_plain_rope = true,
     .needs = ATTENTION | GATED | POST_NORMS | QK_NORMS},
    {.name = "olmoe", .help = "OLMoE: experts, wide norms of queries and keys", .pairs = ROPE_HALVES,
     .wide_qk_norm = true, .local_period = 1, .needs = ATTENTION | PRE_NORMS | QK_NORMS | EXPERTS},
    {.name = "phi3", .help = "Phi 3 and 4: joined projections", .pairs = ROPE_HALVES, .needs = PLAIN},
    {.name = "gpt2", .help = "GPT-2: LayerNorm, learned positions, biases, no gate", .layer_norm = true,
     .learned_positions = true, .act = GLU_GELU, .local_period = 1,
     .needs = ATTENTION | PRE_NORMS | QKV_BIASES | HAS(attn_norm_bias) | HAS(ffn_norm_bias) | HAS(o_bias) | HAS(up) |
              HAS(down) | HAS(up_bias) | HAS(down_bias)},
    {.name = "smollm3", .help = "SmolLM 3: llama whose every fourth layer has no rope", .unturned_period = 4, .local_period = 1,
     .needs = PLAIN, .may = QKV_BIASES | HAS(o_bias)},
};
const int family_count = COUNT_OF(families);

const struct family *family_find(const char *name) {
    for (int i = 0; i < family_count; i++)
        if (strcmp(families[i].name, name) == 0) return &families[i];
    return NULL;
}

bool config_trains(const struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    const struct {
        bool stands;
        const char *what;
    } rows[] = {
        {!a->trains, "its family"},
        {c->more || c->less, "its optional tensors (biases or experts)"},
        {c->joined_qkv || c->joined_gate_up, "its joined projections"},
        {c->window > 0, "its window"},
        {c->score_cap > 0 || c->logit_cap > 0, "its capped numbers"},
        {c->scaling != SCALING_NONE || c->rope_divisors || c->rope_magnitude != 0, "its stretched rope"},
        {c->unturned > 0, "its partial rope"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (rows[i].stands)
            return err_set(err, "this %s model runs but does not train: the gradient of %s is not known (families that"
                                " train: llama, granite)", a->name, rows[i].what);
    return true;
}

// --- tensors of a layer ----------------------------------------------------------------------------------------------

enum dim { DIM_ONE, DIM_C, DIM_HD, DIM_GD, DIM_QN, DIM_KN, DIM_E, DIM_F };
enum fill { FILL_ONES, FILL_ZEROS, FILL_HIDDEN, FILL_WRITER };

#define LAYER_ROW(field, name, rows, cols, fill) {name, DIM_##rows, DIM_##cols, FILL_##fill},
static const struct tensor_row {
    const char *name;
    enum dim rows, cols;
    enum fill fill;
} tensor_rows_of_layer[] = {LAYER_TENSORS(LAYER_ROW)};

static int64_t dim_size(const struct model_config *c, enum dim d) {
    switch (d) {
    case DIM_C: return c->C;
    case DIM_HD: return c->H * c->D;
    case DIM_GD: return c->G * c->D;
    case DIM_QN: return c->family->wide_qk_norm ? c->H * c->D : c->D;
    case DIM_KN: return c->family->wide_qk_norm ? c->G * c->D : c->D;
    case DIM_E: return c->E;
    case DIM_F: return c->F;
    default: return 1;
    }
}

const char *layer_tensor_name(enum layer_tensor t) { return tensor_rows_of_layer[t].name; }

void layer_tensor_shape(const struct model_config *c, enum layer_tensor t, int64_t *mats, int64_t *rows, int64_t *cols) {
    *mats = t == AT_gate_exps || t == AT_up_exps || t == AT_down_exps ? c->E : 1;
    *rows = dim_size(c, tensor_rows_of_layer[t].rows);
    *cols = dim_size(c, tensor_rows_of_layer[t].cols);
}

// Where the file joins tensors, the parameter is named after the joint one and says which rows it is.
static void join(const struct model_config *c, struct param *p, enum layer_tensor t, int64_t layer) {
    int64_t q = c->H * c->D, kv = c->G * c->D;
    const struct {
        enum layer_tensor t;
        bool joined;
        const char *name;
        int64_t part, whole;
    } rows[] = {
        {AT_q, c->joined_qkv, "attn_qkv.weight", 0, q + 2 * kv},
        {AT_k, c->joined_qkv, "attn_qkv.weight", q, q + 2 * kv},
        {AT_v, c->joined_qkv, "attn_qkv.weight", q + kv, q + 2 * kv},
        {AT_q_bias, c->joined_qkv, "attn_qkv.bias", 0, q + 2 * kv},
        {AT_k_bias, c->joined_qkv, "attn_qkv.bias", q, q + 2 * kv},
        {AT_v_bias, c->joined_qkv, "attn_qkv.bias", q + kv, q + 2 * kv},
        {AT_gate, c->joined_gate_up, "ffn_up.weight", 0, 2 * c->F},
        {AT_up, c->joined_gate_up, "ffn_up.weight", c->F, 2 * c->F},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (rows[i].t != t || !rows[i].joined) continue;
        p->part = rows[i].part, p->whole = rows[i].whole;
        snprintf(p->name, sizeof p->name, "blk.%lld.%s", (long long)layer, rows[i].name);
    }
}

// --- the table of parameters ---------------------------------------------------------------------------------------

struct param *config_params_table(const struct model_config *c, int *count) {
    const struct family *a = c->family;
    double width = c->mup ? (double)c->C / (double)c->base_width : 1; // muP width ratio
    float hidden = (float)((double)c->init_std / sqrt(width));       // matrices between activations
    float writer = (float)((double)hidden / sqrt(2 * (double)c->L)); // those that add to the residual stream
    float lr = (float)(1 / width);
    const float std[] = {[FILL_ONES] = 0, [FILL_ZEROS] = 0, [FILL_HIDDEN] = hidden, [FILL_WRITER] = writer};
    int64_t each = 0;
    for (int t = 0; t < LAYER_TENSOR_COUNT; t++) each += config_tensors(c) >> t & 1;
    int n = (int)(1 + a->learned_positions + c->L * each + 1 + a->layer_norm + !c->tied), i = 0;
    struct param *p = mem_array((size_t)n, sizeof *p, "parameter table");
    const struct param matrix = {.rows = c->V, .cols = c->C, .mats = 1, .init_std = c->init_std, .lr_scale = 1, .decay = true};
    const struct param vector = {.rows = 1, .cols = c->C, .mats = 1, .lr_scale = 1};
    p[i] = matrix, strcpy(p[i++].name, "token_embd.weight");
    if (a->learned_positions) p[i] = matrix, p[i].rows = c->ctx, strcpy(p[i++].name, "position_embd.weight");
    for (int64_t l = 0; l < c->L; l++) {
        for (int t = 0; t < LAYER_TENSOR_COUNT; t++) {
            if (!(config_tensors(c) >> t & 1)) continue;
            const struct tensor_row *row = &tensor_rows_of_layer[t];
            bool is_vector = std[row->fill] == 0;
            p[i] = (struct param){.init_std = std[row->fill], .lr_scale = is_vector ? 1 : lr, .decay = !is_vector};
            layer_tensor_shape(c, (enum layer_tensor)t, &p[i].mats, &p[i].rows, &p[i].cols);
            snprintf(p[i].name, sizeof p[i].name, "blk.%lld.%s", (long long)l, row->name);
            join(c, &p[i++], (enum layer_tensor)t, l);
        }
    }
    p[i] = vector, strcpy(p[i++].name, "output_norm.weight");
    if (a->layer_norm) p[i] = vector, strcpy(p[i++].name, "output_norm.bias");
    if (!c->tied) p[i] = matrix, strcpy(p[i++].name, "output.weight");
    assert(i == n);
    *count = n;
    return p;
}

static int64_t layer_weights(const struct model_config *c, bool one_row) {
    int64_t sum = 0, mats, rows, cols;
    for (int t = 0; t < LAYER_TENSOR_COUNT; t++) {
        if (!(config_tensors(c) >> t & 1)) continue;
        layer_tensor_shape(c, (enum layer_tensor)t, &mats, &rows, &cols);
        sum += (one_row && mats > 1 ? c->used : mats) * rows * cols;
    }
    return sum;
}

int64_t config_params(const struct model_config *c) {
    int64_t positions = c->family->learned_positions ? c->ctx * c->C : 0;
    return c->V * c->C * (c->tied ? 1 : 2) + positions + c->L * layer_weights(c, false) +
           c->C * (1 + c->family->layer_norm);
}

double config_flops_per_token(const struct model_config *c, int64_t T) {
    // Products: every weight that a row meets once forward, twice backward; looking up an embedding is no product.
    double products = (double)(c->V * c->C) + (double)(c->L * layer_weights(c, true)) + (double)c->C;
    return 6 * products + 6 * (double)c->L * (double)(c->H * c->D) * (double)T;
}

// --- rope ------------------------------------------------------------------------------------------------------------

// The pair that turns `turns` times in the context before stretching.
static double yarn_pair(const struct model_config *c, double turns) {
    return (double)config_rotated(c) * log((double)c->rope_ctx / (turns * 2 * 3.14159265358979323846)) /
           (2 * log((double)c->rope_base));
}

void rope_frequencies(const struct model_config *c, bool local, const float *divisors, float *freq) {
    double base = local && c->rope_base_local > 0 ? (double)c->rope_base_local : (double)c->rope_base;
    bool stretched = !local || !c->family->local_plain_rope;
    bool yarn = stretched && c->scaling == SCALING_YARN;
    double low = yarn ? fmax(0, floor(yarn_pair(c, (double)c->yarn_fast))) : 0;
    double high = yarn ? fmin((double)config_rotated(c) - 1, ceil(yarn_pair(c, (double)c->yarn_slow))) : 0;
    for (int64_t j = 0; j < config_rotated(c) / 2; j++) {
        double f = pow(base, -2.0 * (double)j / (double)config_rotated(c));
        if (stretched && divisors) f /= (double)divisors[j];
        if (stretched && c->scaling == SCALING_LINEAR) f /= (double)c->rope_factor;
        if (yarn) {
            double ramp = ((double)j - low) / fmax(.001, high - low), kept = 1 - fmin(1, fmax(0, ramp));
            f = f / (double)c->rope_factor * (1 - kept) + f * kept;
        }
        freq[j] = (float)f;
    }
}
