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
#define SHARED (HAS(gate_shared) | HAS(up_shared) | HAS(down_shared))
#define EXPERT_BIASES (HAS(router_bias) | HAS(gate_exps_bias) | HAS(up_exps_bias) | HAS(down_exps_bias))
#define NORM_BIASES (HAS(attn_norm_bias) | HAS(ffn_norm_bias))
#define UNGATED (HAS(up) | HAS(down))
#define UNGATED_BIASES (HAS(up_bias) | HAS(down_bias))
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
    {.name = "granitemoe", .help = "Granite and PowerMoE: granite with experts", .trains = true, .multipliers = true, .local_period = 1,
     .renormalize = true, .needs = ATTENTION | PRE_NORMS | EXPERTS, .may = SHARED},
    {.name = "minicpm", .help = "MiniCPM 1 and 2: llama with multipliers", .multipliers = true, .local_period = 1,
     .needs = PLAIN},
    {.name = "mistral3", .help = "Ministral 3: llama with queries that grow with the position", .by_position = true,
     .needs = PLAIN},
    {.name = "qwen2", .help = "Qwen 2 and 2.5: biases on queries, keys and values", .pairs = ROPE_HALVES,
     .local_period = 1, .needs = PLAIN | QKV_BIASES},
    {.name = "qwen2moe", .help = "Qwen 1.5 and 2 with experts, one of them shared and gated", .pairs = ROPE_HALVES,
     .local_period = 1, .needs = ATTENTION | PRE_NORMS | QKV_BIASES | EXPERTS | SHARED | HAS(shared_route)},
    {.name = "qwen3", .help = "Qwen 3: norms of queries and keys, head by head", .pairs = ROPE_HALVES, .trains = true,
     .local_period = 1, .needs = PLAIN | QK_NORMS},
    {.name = "qwen3moe", .help = "Qwen 3 with experts", .pairs = ROPE_HALVES, .trains = true, .local_period = 1,
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
    {.name = "olmo2", .help = "OLMo 2 and 3: norms behind the branches only, wide norms of queries and keys",
     .pairs = ROPE_HALVES, .wide_qk_norm = true, .local_period = 4, .local_plain_rope = true,
     .needs = ATTENTION | GATED | POST_NORMS | QK_NORMS},
    {.name = "olmoe", .help = "OLMoE: experts, wide norms of queries and keys", .pairs = ROPE_HALVES, .trains = true,
     .wide_qk_norm = true, .local_period = 1, .needs = ATTENTION | PRE_NORMS | QK_NORMS | EXPERTS},
    {.name = "olmo", .help = "OLMo 1: LayerNorm without weights, queries and keys held to a range", .layer_norm = true,
     .bare_norm = true, .clamps = true, .local_period = 1, .needs = ATTENTION | GATED},
    {.name = "phi2", .help = "Phi 1 and 2: both branches from one LayerNorm, biases, rope on a part of a head",
     .pairs = ROPE_HALVES, .layer_norm = true, .head_bias = true, .act = GLU_GELU, .local_period = 1,
     .needs = ATTENTION | QKV_BIASES | HAS(o_bias) | HAS(attn_norm) | HAS(attn_norm_bias) | UNGATED | UNGATED_BIASES},
    {.name = "phi3", .help = "Phi 3 and 4: joined projections, rope stretched by length", .pairs = ROPE_HALVES,
     .needs = PLAIN},
    {.name = "gptneox", .help = "GPT-NeoX, Pythia: both branches from the stream, LayerNorm, biases, exact GELU",
     .pairs = ROPE_HALVES, .layer_norm = true, .parallel = true, .act = GLU_GELU_ERF, .local_period = 1,
     .needs = ATTENTION | QKV_BIASES | HAS(o_bias) | PRE_NORMS | NORM_BIASES | UNGATED | UNGATED_BIASES},
    {.name = "stablelm", .help = "StableLM: llama with LayerNorm and rope on a part of a head", .pairs = ROPE_HALVES,
     .layer_norm = true, .local_period = 1, .needs = ATTENTION | GATED | HAS(attn_norm) | HAS(attn_norm_bias),
     .may = QKV_BIASES | HAS(ffn_norm) | HAS(ffn_norm_bias)},
    {.name = "starcoder2", .help = "StarCoder 2: LayerNorm, biases, GELU without gate", .pairs = ROPE_HALVES,
     .layer_norm = true, .act = GLU_GELU,
     .needs = ATTENTION | QKV_BIASES | HAS(o_bias) | PRE_NORMS | NORM_BIASES | UNGATED | UNGATED_BIASES},
    {.name = "nemotron", .help = "Nemotron, Minitron: LayerNorm, squared ReLU without gate, rope on a part of a head",
     .pairs = ROPE_HALVES, .layer_norm = true, .act = GLU_RELU2, .local_period = 1,
     .needs = ATTENTION | PRE_NORMS | NORM_BIASES | UNGATED, .may = QKV_BIASES | HAS(o_bias) | UNGATED_BIASES},
    {.name = "arcee", .help = "Arcee AFM: llama with squared ReLU without gate", .act = GLU_RELU2, .local_period = 1,
     .needs = ATTENTION | PRE_NORMS | UNGATED},
    {.name = "command-r", .help = "Cohere Command R: both branches from one LayerNorm, scaled logits",
     .layer_norm = true, .logits_times = true, .local_period = 1, .needs = ATTENTION | GATED | HAS(attn_norm)},
    {.name = "cohere2", .help = "Cohere Command R7B, A: command-r with windows, rope in local layers only",
     .layer_norm = true, .logits_times = true, .local_period = 4, .local_rope_only = true,
     .needs = ATTENTION | GATED | HAS(attn_norm)},
    {.name = "smollm3", .help = "SmolLM 3: llama, every fourth layer without rope", .bare_period = 4, .local_period = 1,
     .needs = PLAIN, .may = QKV_BIASES | HAS(o_bias)},
    {.name = "exaone4", .help = "EXAONE 4: norms behind the branches and of queries and keys", .pairs = ROPE_HALVES,
     .local_period = 4, .local_rope_only = true, .needs = ATTENTION | GATED | POST_NORMS | QK_NORMS},
    {.name = "seed_oss", .help = "Seed OSS: llama with biases", .pairs = ROPE_HALVES, .post_named = true,
     .local_period = 1, .needs = PLAIN, .may = QKV_BIASES | HAS(o_bias)},
    {.name = "gpt-oss", .help = "gpt-oss: experts with biases and clamped gates, attention sinks, every other layer local",
     .pairs = ROPE_HALVES, .post_named = true, .renormalize = true, .act = GLU_CLAMPED, .yarn_exact = true,
     .local_period = 2,
     .needs = ATTENTION | QKV_BIASES | HAS(o_bias) | HAS(sinks) | PRE_NORMS | EXPERTS | EXPERT_BIASES},
    {.name = "gpt2", .help = "GPT-2: LayerNorm, learned positions, biases, no gate", .layer_norm = true,
     .learned_positions = true, .act = GLU_GELU, .local_period = 1,
     .needs = ATTENTION | PRE_NORMS | QKV_BIASES | HAS(attn_norm_bias) | HAS(ffn_norm_bias) | HAS(o_bias) | HAS(up) |
              HAS(down) | HAS(up_bias) | HAS(down_bias)},
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!rows[i].stands) continue;
        struct text names = {0};
        for (int f = 0; f < family_count; f++)
            if (families[f].trains) text_fmt(&names, "%s%s", names.len ? ", " : "", families[f].name);
        err_set(err, "this %s model runs but does not train: the gradient of %s is not known (families that train: %s)",
                a->name, rows[i].what, names.data);
        text_free(&names);
        return false;
    }
    return true;
}

// --- tensors of a layer ----------------------------------------------------------------------------------------------

enum dim { DIM_ONE, DIM_C, DIM_H, DIM_HD, DIM_GD, DIM_QN, DIM_KN, DIM_E, DIM_F, DIM_FS };
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
    case DIM_H: return c->H;
    case DIM_HD: return c->H * c->D;
    case DIM_GD: return c->G * c->D;
    case DIM_QN: return c->family->wide_qk_norm ? c->H * c->D : c->D;
    case DIM_KN: return c->family->wide_qk_norm ? c->G * c->D : c->D;
    case DIM_E: return c->E;
    case DIM_F: return c->F;
    case DIM_FS: return c->FS;
    default: return 1;
    }
}

const char *layer_tensor_name(enum layer_tensor t) { return tensor_rows_of_layer[t].name; }

void layer_tensor_shape(const struct model_config *c, enum layer_tensor t, int64_t *mats, int64_t *rows, int64_t *cols) {
    *mats = t == AT_gate_exps || t == AT_up_exps || t == AT_down_exps ? c->E : 1;
    *rows = dim_size(c, tensor_rows_of_layer[t].rows);
    *cols = dim_size(c, tensor_rows_of_layer[t].cols);
}

// Where the file joins tensors, the parameter is named after the joint one and says which rows it is. One norm has two
// names.
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
        {AT_ffn_norm, c->family->post_named, "post_attention_norm.weight", 0, 0},
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
    const struct depth_row *depth = c->mup && c->depth ? c->depth : &depth_rules[0];
    float writer = depth->small_writers ? (float)((double)hidden / sqrt(2 * (double)c->L)) : hidden; // add to the stream
    float lr = (float)(config_depth(c, depth->rate) / width), eps = (float)config_depth(c, depth->eps);
    const float std[] = {[FILL_ONES] = 0, [FILL_ZEROS] = 0, [FILL_HIDDEN] = hidden, [FILL_WRITER] = writer};
    int64_t each = 0;
    for (int t = 0; t < LAYER_TENSOR_COUNT; t++) each += config_tensors(c) >> t & 1;
    bool out_bias = config_tensors(c) & HAS(attn_norm_bias);
    int n = (int)(1 + a->learned_positions + c->L * each + !a->bare_norm + out_bias + !c->tied + c->head_bias), i = 0;
    struct param *p = mem_array((size_t)n, sizeof *p, "parameter table");
    const struct param matrix = {.rows = c->V, .cols = c->C, .mats = 1, .init_std = c->init_std, .lr_scale = 1, .eps_scale = 1, .decay = true};
    const struct param vector = {.rows = 1, .cols = c->C, .mats = 1, .lr_scale = 1, .eps_scale = 1};
    p[i] = matrix, strcpy(p[i++].name, "token_embd.weight");
    if (a->learned_positions) p[i] = matrix, p[i].rows = c->ctx, strcpy(p[i++].name, "position_embd.weight");
    for (int64_t l = 0; l < c->L; l++) {
        for (int t = 0; t < LAYER_TENSOR_COUNT; t++) {
            if (!(config_tensors(c) >> t & 1)) continue;
            const struct tensor_row *row = &tensor_rows_of_layer[t];
            bool is_vector = std[row->fill] == 0;
            p[i] = (struct param){.init_std = std[row->fill], .lr_scale = is_vector ? 1 : lr, .eps_scale = eps, .decay = !is_vector,
                                  .exact = t == AT_router};
            layer_tensor_shape(c, (enum layer_tensor)t, &p[i].mats, &p[i].rows, &p[i].cols);
            snprintf(p[i].name, sizeof p[i].name, "blk.%lld.%s", (long long)l, row->name);
            join(c, &p[i++], (enum layer_tensor)t, l);
        }
    }
    if (!a->bare_norm) p[i] = vector, strcpy(p[i++].name, "output_norm.weight");
    if (out_bias) p[i] = vector, strcpy(p[i++].name, "output_norm.bias");
    if (!c->tied) p[i] = matrix, strcpy(p[i++].name, "output.weight");
    if (c->head_bias) p[i] = vector, p[i].cols = c->V, strcpy(p[i++].name, "output.bias");
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

static int64_t all_weights(const struct model_config *c, bool one_row) {
    int64_t positions = c->family->learned_positions ? c->ctx * c->C : 0;
    int64_t norms = !c->family->bare_norm + ((config_tensors(c) & HAS(attn_norm_bias)) != 0);
    return c->V * c->C * (c->tied ? 1 : 2) + positions + c->L * layer_weights(c, one_row) + c->C * norms +
           (c->head_bias ? c->V : 0);
}

int64_t config_params(const struct model_config *c) { return all_weights(c, false); }
int64_t config_params_active(const struct model_config *c) { return all_weights(c, true); }

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

void rope_divisor_names(const struct model_config *c, const char *names[2]) {
    bool by_length = c->scaling == SCALING_LONG;
    names[0] = by_length ? "rope_factors_short.weight" : c->rope_divisors ? "rope_freqs.weight" : NULL;
    names[1] = by_length ? "rope_factors_long.weight" : NULL;
}

// DYNAMIC: the base at which the slowest pair turns as far in ctx as it did in the model's context (bloc97 2023).
static double dynamic_base(const struct model_config *c, double base, int64_t ctx) {
    double R = (double)config_rotated(c), factor = (double)c->rope_factor;
    if (ctx <= c->ctx || R <= 2) return base;
    return base * pow(factor * (double)ctx / (double)c->ctx - (factor - 1), R / (R - 2));
}

bool config_rope_note(const struct model_config *c, int64_t ctx, struct text *note) {
    bool far = ctx > (c->scaling == SCALING_LONG ? c->rope_ctx : c->ctx);
    if (c->scaling == SCALING_LONG)
        text_fmt(note, far ? "rope: the factors for contexts above %lld tokens; with -c %lld or less the others"
                           : "rope: the factors for contexts of at most %lld tokens; with -c above %lld the others",
                 (long long)c->rope_ctx, (long long)c->rope_ctx);
    else if (c->scaling == SCALING_DYNAMIC)
        text_fmt(note, far ? "rope: stretched for a context of %lld tokens, whatever the length of the text"
                           : "rope: not stretched, as a context of %lld tokens is within the model's", (long long)ctx);
    return config_rope_by_context(c);
}

void rope_frequencies(const struct model_config *c, bool local, float *const divisors[2], int64_t ctx, float *freq) {
    double base = local && c->rope_base_local > 0 ? (double)c->rope_base_local : (double)c->rope_base;
    bool stretched = !local || !c->family->local_plain_rope;
    bool yarn = stretched && c->scaling == SCALING_YARN, exact = c->family->yarn_exact;
    const float *by = stretched ? divisors[c->scaling == SCALING_LONG && ctx > c->rope_ctx] : NULL;
    if (stretched && c->scaling == SCALING_DYNAMIC) base = dynamic_base(c, base, ctx);
    double low = yarn ? yarn_pair(c, (double)c->yarn_fast) : 0, high = yarn ? yarn_pair(c, (double)c->yarn_slow) : 0;
    low = fmax(0, exact ? low : floor(low));
    high = fmin((double)config_rotated(c) - 1, exact ? high : ceil(high));
    for (int64_t j = 0; j < config_rotated(c) / 2; j++) {
        double f = pow(base, -2.0 * (double)j / (double)config_rotated(c));
        if (by) f /= (double)by[j];
        if (stretched && c->scaling == SCALING_LINEAR) f /= (double)c->rope_factor;
        if (yarn) {
            double ramp = ((double)j - low) / fmax(.001, high - low), kept = 1 - fmin(1, fmax(0, ramp));
            f = f / (double)c->rope_factor * (1 - kept) + f * kept;
        }
        freq[j] = (float)f;
    }
}
