// config_file.c: a config from the keys of a file, and back.
//
// A model must never run with a feature of its file left out. So every key under the architecture's name is a row of
// known_keys: read here, known to change nothing, or refused unless it says "off"; a key that is in no row is refused
// by its name.
//
// Which optional tensors a layer has, and whether the file joins projections, is seen at layer 0; the table of
// parameters then demands the same of every layer (model.c).
#include "model/internal.h"

#include <math.h>
#include <string.h>

// Ours, not the architecture's: it changes nothing that is computed.
static const char exit_key[] = "lehr.exit_layer";

// "<arch>.<rest>" in buf; returns buf.
static const char *key(char buf[96], const struct family *f, const char *rest) {
    snprintf(buf, 96, "%s.%s", f->name, rest);
    return buf;
}

static bool read_int(const struct model_file *f, const struct family *a, const char *rest, bool required,
                     int64_t max, int64_t *value, struct err *err) {
    char k[96];
    return meta_int(f, key(k, a, rest), required, 1, max, value, err);
}

// Absent or zero leaves *value alone: writers use both for "does not apply".
static bool read_real(const struct model_file *f, const struct family *a, const char *rest, double max,
                      float *value, struct err *err) {
    char k[96];
    double x = 0;
    if (!meta_real(f, key(k, a, rest), false, 0, max, &x, err)) return false;
    if (x != 0) *value = (float)x;
    return true;
}

// --- which keys there may be -----------------------------------------------------------------------------------------

enum key_use { READ, IDLE, OFF };
static const struct known_key {
    const char *rest;
    enum key_use use;
    double off; // of OFF: besides 0
    const char *what;
} known_keys[] = {
    {"context_length", READ, 0, NULL},
    {"embedding_length", READ, 0, NULL},
    {"block_count", READ, 0, NULL},
    {"feed_forward_length", READ, 0, NULL},
    {"vocab_size", READ, 0, NULL},
    {"attention.head_count", READ, 0, NULL},
    {"attention.head_count_kv", READ, 0, NULL},
    {"attention.key_length", READ, 0, NULL},
    {"attention.value_length", READ, 0, NULL},
    {"attention.layer_norm_rms_epsilon", READ, 0, NULL},
    {"attention.layer_norm_epsilon", READ, 0, NULL},
    {"attention.scale", READ, 0, NULL},
    {"attention.sliding_window", READ, 0, NULL},
    {"attention.sliding_window_pattern", READ, 0, NULL},
    {"attention.causal", READ, 0, NULL},
    {"embedding_scale", READ, 0, NULL},
    {"residual_scale", READ, 0, NULL},
    {"logit_scale", READ, 0, NULL},
    {"attn_logit_softcapping", READ, 0, NULL},
    {"final_logit_softcapping", READ, 0, NULL},
    {"expert_count", READ, 0, NULL},
    {"expert_used_count", READ, 0, NULL},
    {"expert_feed_forward_length", READ, 0, NULL},
    {"expert_shared_feed_forward_length", READ, 0, NULL},
    {"expert_weights_norm", READ, 0, NULL},
    {"attention.clamp_kqv", READ, 0, NULL},
    {"rope.dimension_count", READ, 0, NULL},
    {"rope.freq_base", READ, 0, NULL},
    {"rope.freq_base_swa", READ, 0, NULL},
    {"rope.scaling.type", READ, 0, NULL},
    {"rope.scaling.factor", READ, 0, NULL},
    {"rope.scale_linear", READ, 0, NULL},
    {"rope.scaling.original_context_length", READ, 0, NULL},
    {"rope.scaling.attn_factor", READ, 0, NULL},
    {"rope.scaling.yarn_beta_fast", READ, 0, NULL},
    {"rope.scaling.yarn_beta_slow", READ, 0, NULL},
    {"rope.scaling.finetuned", READ, 0, NULL},
    {"use_parallel_residual", READ, 0, NULL},
    {"tensor_data_layout", IDLE, 0, NULL},
    {"pooling_type", IDLE, 0, NULL}, // of embeddings
    {"mm.tokens_per_image", IDLE, 0, NULL},
    {"rope.scaling.yarn_ext_factor", OFF, 1, "another YaRN"},
    {"rope.scaling.yarn_attn_factor", OFF, 1, "another YaRN"},
    {"rope.scaling.yarn_log_multiplier", READ, 0, NULL},
    {"rope.scaling.alpha", OFF, 0, "stretched rope by alpha"},
    {"attention.max_alibi_bias", OFF, 0, "ALiBi positions"},
    {"attention.temperature_scale", READ, 0, NULL},
    {"attention.temperature_length", OFF, 0, "attention scaled by position"},
    {"attention.output_scale", OFF, 1, "scaled attention"},
    {"attention.value_scale", OFF, 1, "scaled values"},
    {"attention.shared_kv_layers", OFF, 0, "layers that share keys"},
    {"leading_dense_block_count", OFF, 0, "a mixture of experts in some layers only"},
    {"expert_shared_count", OFF, 0, "shared experts, so counted,"},
    {"interleave_moe_layer_step", OFF, 1, "a mixture of experts in some layers only"},
    {"nextn_predict_layers", OFF, 0, "layers that predict further tokens"},
    {"expert_group_count", OFF, 1, "groups of experts"},
    {"expert_group_used_count", OFF, 1, "groups of experts"},
    {"expert_weights_scale", OFF, 1, "scaled experts"},
    {"expert_gating_func", OFF, 1, "another gate of experts"},
    {"moe_every_n_layers", OFF, 1, "a mixture of experts in some layers only"},
};

static const struct known_key *known_key(const char *rest) {
    for (size_t i = 0; i < COUNT_OF(known_keys); i++)
        if (strcmp(known_keys[i].rest, rest) == 0) return &known_keys[i];
    return NULL;
}

struct key_walk {
    const char *arch;
    char unknown[96];
};
static void walk_key(void *arg, const char *name, const char *value) {
    struct key_walk *w = arg;
    (void)value;
    size_t n = strlen(w->arch);
    if (w->unknown[0] || strncmp(name, w->arch, n) != 0 || name[n] != '.' || known_key(name + n + 1)) return;
    snprintf(w->unknown, sizeof w->unknown, "%.90s", name);
}

// Keys that change what a model computes in a way that forward.c does not. Each may be absent or say "off".
static bool refuse_features(const struct model_file *f, const struct family *a, struct err *err) {
    char k[96];
    for (size_t i = 0; i < COUNT_OF(known_keys); i++) {
        const struct known_key *row = &known_keys[i];
        double x = 0;
        if (row->use != OFF) continue;
        if (!meta_real(f, key(k, a, row->rest), false, -1e300, 1e300, &x, err)) return false;
        if (x != 0 && x != row->off)
            return err_set(err, "%s is %g: %s is not supported, so the model would compute something else", k, x,
                           row->what);
    }
    struct key_walk walk = {.arch = a->name};
    meta_each(f, walk_key, &walk);
    if (walk.unknown[0])
        return err_set(err, "the key %s is not known to this program, and may change what the model computes",
                       walk.unknown);
    const struct {
        const char *rest;
        bool expected;
    } flags[] = {
        {"attention.causal", true},
        {"expert_weights_norm", a->renormalize},
        {"rope.scaling.finetuned", true}, // granite only: false means "no rope at all" there
    };
    for (size_t i = 0; i < COUNT_OF(flags) - !a->multipliers; i++) {
        bool x = flags[i].expected;
        if (!meta_bool(f, key(k, a, flags[i].rest), false, &x, err)) return false;
        if (x != flags[i].expected)
            return err_set(err, "%s is %s: not supported", k, x ? "true" : "false");
    }
    return true;
}

// --- multipliers and caps ----------------------------------------------------------------------------------------------

// A family without multipliers that carries some must say what is plain for it.
static bool read_multipliers(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    char k[96];
    struct {
        const char *rest;
        float *value;
    } rows[] = {
        {"embedding_scale", &c->m_emb},
        {"attention.scale", &c->m_attn},
        {"residual_scale", &c->m_res},
        {"logit_scale", &c->logit_divisor},
    };
    bool minicpm = strcmp(a->name, "minicpm") == 0;
    // The 27B of Gemma 2 and 3 scale by the width over the heads, which no key says: they are known by their depth.
    bool by_width = (strcmp(a->name, "gemma2") == 0 && c->L == 46) || (strcmp(a->name, "gemma3") == 0 && c->L == 62);
    c->m_emb = a->root_embedding ? sqrtf((float)c->C) : minicpm ? 12 : 1;
    c->m_res = minicpm ? (float)(1.4 / sqrt((double)c->L)) : 1;
    c->logit_divisor = minicpm ? (float)c->C / 256 : 1;
    c->m_attn = (float)(1 / sqrt((double)(by_width ? c->C / c->H : c->D)));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        float plain = *rows[i].value;
        if (!read_real(f, a, rows[i].rest, 1e6, rows[i].value, err)) return false;
        bool times = a->logits_times && rows[i].value == &c->logit_divisor;
        if (times) c->logit_divisor = 1 / c->logit_divisor;
        bool scale = rows[i].value == &c->m_attn && a->capped; // of Gemma: not always 1/sqrt(D)
        if (!a->multipliers && !times && !scale && fabsf(*rows[i].value - plain) > 1e-6f * plain)
            return err_set(err, "%s.%s is %g: a %s model has no such multiplier (granite has)", a->name,
                           rows[i].rest, (double)*rows[i].value, a->name);
    }
    // Writers of MiniCPM files disagree whether the number divides or multiplies; the paper's divisor is C/256 > 1.
    if (minicpm && c->logit_divisor < 1) c->logit_divisor = 1 / c->logit_divisor;
    const struct {
        const char *rest;
        float *value, plain;
    } caps[] = {{"attn_logit_softcapping", &c->score_cap, a->score_cap},
                {"final_logit_softcapping", &c->logit_cap, a->logit_cap}};
    for (size_t i = 0; i < COUNT_OF(caps); i++) {
        *caps[i].value = meta_kind(f, key(k, a, caps[i].rest)) == META_ABSENT ? caps[i].plain : 0;
        if (!read_real(f, a, caps[i].rest, 1e6, caps[i].value, err)) return false;
        if (*caps[i].value > 0 && !a->capped)
            return err_set(err, "%s.%s is %g: a %s model has no capped numbers (gemma2 has)", a->name, caps[i].rest,
                           (double)*caps[i].value, a->name);
    }
    return true;
}

// --- positions ---------------------------------------------------------------------------------------------------------

// Which kind of stretching, by the type's name or by tensors that only one kind has.
static bool read_scaling(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    static const char *const names[] = {"none", "linear", "yarn", "longrope", "dynamic"};
    static_assert(SCALING_LINEAR == 1 && SCALING_YARN == 2 && SCALING_LONG == 3 && SCALING_DYNAMIC == 4, "in this order");
    char k[96];
    float factor = 1;
    if (!read_real(f, a, "rope.scale_linear", 1e6, &factor, err)) return false;
    if (!read_real(f, a, "rope.scaling.factor", 1e6, &factor, err)) return false;
    struct span type = {"linear", 6}; // a factor without a type
    if (!meta_text(f, key(k, a, "rope.scaling.type"), false, &type, err)) return false;
    size_t kind = 0;
    while (kind < COUNT_OF(names) && !span_is(type, names[kind])) kind++;
    if (kind == COUNT_OF(names))
        return err_set(err, "%s is '%.*s', expected 'none', 'linear', 'yarn', 'longrope' or 'dynamic'", k,
                       (int)(type.n < 32 ? type.n : 32), type.p);
    bool divisors = model_file_tensor(f, "rope_factors_long.weight") != NULL;
    if (kind == SCALING_LONG && !divisors)
        return err_set(err, "%s is 'longrope', but the tensor rope_factors_long.weight is missing", k);
    if (divisors && (kind == SCALING_YARN || kind == SCALING_DYNAMIC || (kind == SCALING_LINEAR && factor != 1)))
        return err_set(err, "%s is '%s' by %g, but rope_factors_long.weight stretches rope by tensors: not supported"
                            " together", k, names[kind], (double)factor);
    if (divisors) c->scaling = SCALING_LONG, factor = 1;
    else if (factor != 1) c->scaling = (enum rope_scaling)kind;
    c->rope_factor = factor;
    c->rope_divisors = model_file_tensor(f, "rope_freqs.weight") != NULL;
    return true;
}

static bool read_rope(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    c->rope_ctx = c->ctx;
    if (a->learned_positions) return true;
    if (!read_real(f, a, "rope.freq_base", 1e12, &c->rope_base, err)) return false;
    c->rope_base_local = a->local_base > 0 ? a->local_base : c->rope_base;
    if (!read_real(f, a, "rope.freq_base_swa", 1e12, &c->rope_base_local, err)) return false;
    if (!read_scaling(f, c, err)) return false;
    c->yarn_fast = 32, c->yarn_slow = 1; // the paper's, for Llama
    float magnitude = 1;
    if (!read_int(f, a, "rope.scaling.original_context_length", c->scaling == SCALING_LONG, 1 << 24, &c->rope_ctx, err))
        return false;
    if (!read_real(f, a, "rope.scaling.attn_factor", 1e3, &magnitude, err)) return false;
    if (!read_real(f, a, "rope.scaling.yarn_beta_fast", 1e6, &c->yarn_fast, err)) return false;
    if (!read_real(f, a, "rope.scaling.yarn_beta_slow", 1e6, &c->yarn_slow, err)) return false;
    float grown = c->scaling == SCALING_YARN && c->rope_factor > 1 ? .1f * logf(c->rope_factor) : 0, shrink = 0;
    if (!read_real(f, a, "rope.scaling.yarn_log_multiplier", 1e3, &shrink, err)) return false;
    if (!read_real(f, a, "attention.temperature_scale", 1e3, &c->temperature, err)) return false;
    magnitude *= (1 + grown) / (1 + shrink * grown);
    if (!a->by_position && (shrink > 0 || c->temperature > 0))
        return err_set(err, "%s.%s is %g: a %s model has no attention scaled by position, nor its YaRN (mistral3 has)",
                       a->name, shrink > 0 ? "rope.scaling.yarn_log_multiplier" : "attention.temperature_scale",
                       (double)(shrink > 0 ? shrink : c->temperature), a->name);
    c->rope_magnitude = magnitude != 1 ? magnitude : 0;
    for (int64_t l = 0; a->bare_period && l < c->L; l++)
        if ((l + 1) % a->bare_period == 0) c->bare[l / 64] |= UINT64_C(1) << (l % 64);
    return true;
}

static void set_local(struct model_config *c, int64_t l) { c->local[l / 64] |= UINT64_C(1) << (l % 64); }

// Which layers are local: a list of booleans, or a period, or the family's.
static bool read_pattern(const struct model_file *f, struct model_config *c, struct err *err) {
    char k[96];
    key(k, c->family, "attention.sliding_window_pattern");
    int64_t period = c->family->local_period;
    if (meta_kind(f, k) != META_ARRAY) {
        if (!meta_int(f, k, false, 0, LAYERS_MAX, &period, err)) return false;
        for (int64_t l = 0; l < c->L; l++)
            if (period == 0 || l % period < period - 1) set_local(c, l);
        return true;
    }
    struct meta_array list;
    if (!meta_array_open(f, k, META_BOOL, &list, NULL) && !meta_array_open(f, k, META_INT, &list, err)) return false;
    if (list.count != (uint64_t)c->L)
        return err_set(err, "%s has %llu entries, expected one for each of %lld layers", k,
                       (unsigned long long)list.count, (long long)c->L);
    int64_t local;
    for (int64_t l = 0; meta_next_int(&list, &local); l++)
        if (local) set_local(c, l);
    return true;
}

static bool read_window(const struct model_file *f, struct model_config *c, struct err *err) {
    char k[96];
    int64_t window = c->family->window;
    if (!meta_int(f, key(k, c->family, "attention.sliding_window"), false, 0, INT64_MAX, &window, err)) return false;
    char list[96];
    bool unknown = c->family->local_period == 1 &&
                   meta_kind(f, key(list, c->family, "attention.sliding_window_pattern")) != META_ARRAY;
    if (window > 0 && window < c->ctx && unknown)
        return err_set(err, "%s is %lld, less than the context of %lld, but nothing says in which layers: sliding-window"
                            " attention is not usual in %s models", k, (long long)window, (long long)c->ctx, c->family->name);
    if (window == 0 || unknown) return true;
    c->window = window < INT32_MAX ? window : INT32_MAX;
    if (!read_pattern(f, c, err)) return false;
    for (int64_t l = 0; c->family->local_rope_only && l < c->L; l++)
        if (!config_is_local(c, l)) c->bare[l / 64] |= UINT64_C(1) << (l % 64);
    return true;
}

// --- shape -------------------------------------------------------------------------------------------------------------

static bool read_experts(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    char k[96];
    bool needed = a->needs & HAS(router), possible = needed || a->may & HAS(router);
    if (!meta_int(f, key(k, a, "expert_count"), needed, 0, EXPERTS_MAX, &c->E, err)) return false;
    if (c->E == 0 && !needed) return true;
    if (c->E < 2 || !possible)
        return err_set(err, "%s is %lld: %s", k, (long long)c->E,
                       possible ? "expected at least 2" : "a mixture of experts is not known of this family");
    if (!read_int(f, a, "expert_used_count", true, c->E, &c->used, err)) return false;
    const struct file_tensor *up = model_file_tensor(f, "blk.0.ffn_up_exps.weight");
    const struct file_tensor *shared = model_file_tensor(f, "blk.0.ffn_up_shexp.weight");
    if (up && up->n_dims == 3) c->F = up->size[1]; // what a file means that does not say it
    if (!read_int(f, a, "expert_feed_forward_length", false, 1 << 19, &c->F, err)) return false;
    if (shared && shared->n_dims == 2) c->FS = shared->size[0];
    if (!meta_int(f, key(k, a, "expert_shared_feed_forward_length"), false, 0, 1 << 19, &c->FS, err)) return false;
    if (c->FS > 0 && !((a->needs | a->may) & HAS(up_shared)))
        return err_set(err, "%s is %lld: shared experts are not known of %s models", k, (long long)c->FS, a->name);
    if (!needed) {
        c->less = HAS(gate) | HAS(up) | HAS(down);
        c->more = HAS(router) | HAS(gate_exps) | HAS(up_exps) | HAS(down_exps);
    }
    return true;
}

// Joined and optional tensors, as layer 0 has them. Where one of a group is there, all of it must be.
static void read_tensors(const struct model_file *f, struct model_config *c) {
    static const uint64_t groups[] = {HAS(ffn_norm) | HAS(ffn_norm_bias), HAS(up_bias) | HAS(down_bias)};
    const struct family *a = c->family;
    c->joined_qkv = model_file_tensor(f, "blk.0.attn_qkv.weight") != NULL;
    const struct file_tensor *up = model_file_tensor(f, "blk.0.ffn_up.weight");
    c->joined_gate_up = (config_tensors(c) & HAS(gate)) && up && up->size[0] == 2 * c->F &&
                        !model_file_tensor(f, "blk.0.ffn_gate.weight");
    for (int t = 0; t < LAYER_TENSOR_COUNT; t++) {
        char name[96];
        snprintf(name, sizeof name, "blk.0.%s", layer_tensor_name((enum layer_tensor)t));
        if (c->joined_qkv && (t == AT_q_bias || t == AT_k_bias || t == AT_v_bias)) strcpy(name, "blk.0.attn_qkv.bias");
        if ((a->may >> t & 1) && model_file_tensor(f, name)) c->more |= UINT64_C(1) << t;
    }
    for (size_t i = 0; i < COUNT_OF(groups); i++)
        if (c->more & groups[i]) c->more |= groups[i] & a->may;
    if (c->FS > 0) c->more |= (HAS(gate_shared) | HAS(up_shared) | HAS(down_shared)) & ~a->needs;
    c->head_bias = a->head_bias && model_file_tensor(f, "output.bias");
}

// A layer without a second norm feeds both branches from the first. Where there are two norms (gptneox), the file says.
static bool read_parallel(const struct model_file *f, struct model_config *c, struct err *err) {
    char k[96];
    bool one_norm = (config_tensors(c) & HAS(attn_norm)) && !(config_tensors(c) & HAS(ffn_norm)), said;
    c->parallel = said = one_norm || c->family->parallel;
    if (!meta_bool(f, key(k, c->family, "use_parallel_residual"), false, &said, err)) return false;
    if (c->family->parallel) c->parallel = said;
    return said == c->parallel ||
           err_set(err, "%s is %s, but a layer of this model has %s", k, said ? "true" : "false",
                   one_norm ? "one norm for both branches" : "a norm for each branch: not supported");
}

static bool read_clamp(const struct model_file *f, struct model_config *c, struct err *err) {
    char k[96];
    double clamp = 0;
    if (!meta_real(f, key(k, c->family, "attention.clamp_kqv"), false, 0, 1e6, &clamp, err)) return false;
    c->clamp = (float)clamp;
    return clamp == 0 || c->family->clamps ||
           err_set(err, "%s is %g: a %s model has no clamped queries and keys (olmo has)", k, clamp, c->family->name);
}

static bool read_heads(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    if (!read_int(f, a, "attention.head_count", true, 1024, &c->H, err)) return false;
    c->G = c->H;
    if (!read_int(f, a, "attention.head_count_kv", false, 1024, &c->G, err)) return false;
    c->D = c->C / c->H;
    if (!read_int(f, a, "attention.key_length", false, 1024, &c->D, err)) return false;
    int64_t value_length = c->D, rotated = c->D;
    if (!read_int(f, a, "attention.value_length", false, 1 << 20, &value_length, err)) return false;
    if (value_length != c->D)
        return err_set(err, "values have head size %lld, keys %lld: not supported", (long long)value_length,
                       (long long)c->D);
    if (!read_int(f, a, "rope.dimension_count", false, 1 << 20, &rotated, err)) return false;
    if (rotated > c->D)
        return err_set(err, "rope turns %lld of %lld columns of a head", (long long)rotated, (long long)c->D);
    if (!a->learned_positions) c->unturned = c->D - rotated;
    return true;
}

static bool read_shape(const struct model_file *f, struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    const struct file_tensor *embed = model_file_tensor(f, "token_embd.weight");
    if (!embed) return err_set(err, "tensor token_embd.weight is missing");
    if (embed->n_dims != 2)
        return err_set(err, "tensor token_embd.weight has %d dimensions, expected 2", embed->n_dims);
    // A layer has at least one tensor, so their number bounds the table that the layers allocate.
    int64_t most = (int64_t)model_file_tensor_count(f);
    if (most > LAYERS_MAX) most = LAYERS_MAX;
    if (!read_int(f, a, "embedding_length", true, 1 << 17, &c->C, err)) return false;
    if (!read_int(f, a, "block_count", true, most, &c->L, err)) return false;
    if (!read_int(f, a, "feed_forward_length", true, 1 << 19, &c->F, err)) return false;
    if (!read_int(f, a, "context_length", true, 1 << 24, &c->ctx, err)) return false;
    if (!read_heads(f, c, err) || !read_experts(f, c, err)) return false;
    c->V = embed->size[0];
    int64_t vocab = c->V;
    if (!read_int(f, a, "vocab_size", false, INT64_MAX, &vocab, err)) return false;
    if (vocab != c->V)
        return err_set(err, "%s.vocab_size is %lld, but token_embd.weight has %lld rows", a->name, (long long)vocab,
                       (long long)c->V);
    c->tied = model_file_tensor(f, "output.weight") == NULL;
    read_tensors(f, c);
    return read_parallel(f, c, err) && read_clamp(f, c, err);
}

static bool read_family(struct model_config *c, const struct model_file *f, struct err *err) {
    struct span arch;
    if (!meta_text(f, "general.architecture", true, &arch, err)) return false;
    for (int i = 0; i < family_count; i++)
        if (span_is(arch, families[i].name)) c->family = &families[i];
    if (c->family) return true;
    struct text names = {0};
    for (int i = 0; i < family_count; i++) text_fmt(&names, "%s%s", i ? ", " : "", families[i].name);
    err_set(err, "architecture '%.*s' is not known; known are %s", (int)(arch.n < 64 ? arch.n : 64), arch.p, names.data);
    text_free(&names);
    return false;
}

static bool read_all(struct model_config *c, const struct model_file *f, struct err *err) {
    *c = (struct model_config){.rope_base = 10000};
    if (!read_family(c, f, err) || !refuse_features(f, c->family, err) || !read_shape(f, c, err)) return false;
    char k[96];
    double eps = 0;
    const char *eps_key = c->family->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    if (!meta_real(f, key(k, c->family, eps_key), true, 1e-30, 1, &eps, err)) return false;
    c->norm_eps = (float)eps;
    if (!read_rope(f, c, err) || !read_window(f, c, err) || !read_multipliers(f, c, err)) return false;
    // What a file does not say and only training reads: the rule that config_derive would have used.
    c->mup = c->family->multipliers;
    c->init_std = c->mup ? .1f : .02f;
    c->base_width = c->mup ? (float)c->C / c->logit_divisor : 256;
    return meta_int(f, exit_key, false, 0, LAYERS_MAX, &c->exit_layer, err) && config_check(c, err);
}

bool config_read(struct model_config *c, const struct model_file *f, struct err *err) {
    return read_all(c, f, err) || err_in(err, "%s", model_file_path(f));
}

// --- writing -----------------------------------------------------------------------------------------------------------

// Keys of what differs from the family's plain form, for models that run but do not train.
static void write_more(const struct model_config *c, struct gguf_out *o) {
    const struct family *a = c->family;
    char k[96];
    if (c->E) {
        gguf_out_u32(o, key(k, a, "expert_count"), (uint32_t)c->E);
        gguf_out_u32(o, key(k, a, "expert_used_count"), (uint32_t)c->used);
        gguf_out_u32(o, key(k, a, "expert_feed_forward_length"), (uint32_t)c->F);
        if (c->FS) gguf_out_u32(o, key(k, a, "expert_shared_feed_forward_length"), (uint32_t)c->FS);
    }
    if (c->clamp > 0) gguf_out_f32(o, key(k, a, "attention.clamp_kqv"), c->clamp);
    if (a->parallel) gguf_out_bool(o, key(k, a, "use_parallel_residual"), c->parallel);
    if (a->logits_times) gguf_out_f32(o, key(k, a, "logit_scale"), 1 / c->logit_divisor);
    if (c->scaling != SCALING_NONE) {
        static const char *const names[] = {"none", "linear", "yarn", "longrope", "dynamic"};
        const char *name = names[c->scaling];
        bool yarn = c->scaling == SCALING_YARN;
        gguf_out_text(o, key(k, a, "rope.scaling.type"), name, strlen(name));
        if (c->scaling != SCALING_LONG) gguf_out_f32(o, key(k, a, "rope.scaling.factor"), c->rope_factor);
        gguf_out_u32(o, key(k, a, "rope.scaling.original_context_length"), (uint32_t)c->rope_ctx);
        if (yarn) gguf_out_f32(o, key(k, a, "rope.scaling.yarn_beta_fast"), c->yarn_fast);
        if (yarn) gguf_out_f32(o, key(k, a, "rope.scaling.yarn_beta_slow"), c->yarn_slow);
    }
    float known = c->scaling == SCALING_YARN && c->rope_factor > 1 ? 1 + .1f * logf(c->rope_factor) : 1;
    float magnitude = (c->rope_magnitude != 0 ? c->rope_magnitude : 1) / known;
    if (magnitude != 1) gguf_out_f32(o, key(k, a, "rope.scaling.attn_factor"), magnitude);
    if (c->temperature > 0) gguf_out_f32(o, key(k, a, "attention.temperature_scale"), c->temperature);
    if (a->local_plain_rope) gguf_out_f32(o, key(k, a, "rope.freq_base_swa"), c->rope_base_local);
    if (c->window) {
        int32_t local[LAYERS_MAX];
        for (int64_t l = 0; l < c->L; l++) local[l] = config_is_local(c, l);
        gguf_out_u32(o, key(k, a, "attention.sliding_window"), (uint32_t)c->window);
        gguf_out_i32s(o, key(k, a, "attention.sliding_window_pattern"), local, (size_t)c->L);
    }
    if (a->capped) gguf_out_f32(o, key(k, a, "attn_logit_softcapping"), c->score_cap);
    if (a->capped) gguf_out_f32(o, key(k, a, "final_logit_softcapping"), c->logit_cap);
}

void config_write(const struct model_config *c, struct gguf_out *o) {
    const struct family *a = c->family;
    char k[96], name[96], count[32];
    int n = snprintf(name, sizeof name, "%s %s", a->name, text_count(count, (double)config_params(c)));
    gguf_out_text(o, "general.architecture", a->name, strlen(a->name));
    gguf_out_text(o, "general.name", name, (size_t)n);
    const struct {
        const char *rest;
        int64_t value;
    } whole[] = {
        {"context_length", c->ctx},       {"embedding_length", c->C},         {"block_count", c->L},
        {"feed_forward_length", c->F},    {"attention.head_count", c->H},     {"attention.head_count_kv", c->G},
        {"attention.key_length", c->D},   {"attention.value_length", c->D},
        {"rope.dimension_count", config_rotated(c)}, {"vocab_size", c->V},
    };
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (whole[i].value || !a->learned_positions)
            gguf_out_u32(o, key(k, a, whole[i].rest), (uint32_t)whole[i].value);
    gguf_out_f32(o, key(k, a, a->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
                 c->norm_eps);
    if (!a->learned_positions) gguf_out_f32(o, key(k, a, "rope.freq_base"), c->rope_base);
    write_more(c, o);
    if (c->exit_layer) gguf_out_u32(o, exit_key, (uint32_t)c->exit_layer);
    if (!a->multipliers) return;
    gguf_out_f32(o, key(k, a, "embedding_scale"), c->m_emb);
    gguf_out_f32(o, key(k, a, "attention.scale"), c->m_attn);
    gguf_out_f32(o, key(k, a, "residual_scale"), c->m_res);
    gguf_out_f32(o, key(k, a, "logit_scale"), c->logit_divisor);
}
