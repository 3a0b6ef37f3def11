// hf_config.c: what a config.json says, in GGUF's words.
//
// Hugging Face has one class per family, GGUF one architecture; a row of `families` joins them. The
// rule that keeps results right: every value of the config must be read here or stand in the list
// of those that do not touch the computation. Anything else that is not null or false is refused by
// its name, so a feature that nobody here has heard of cannot be left out silently.
//
// Absent values mean what the class of that name means by them; writers drop values only when they
// equal those. Two spellings of rope are known: rope_theta + rope_scaling, and the newer
// rope_parameters that joins them.
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define VALUES_MAX 4096

static const struct hf_family families[] = {
    {"LlamaForCausalLM", "llama", true, false, false, false, "silu", 1e4, true, .experts = NO_EXPERTS},
    {"MistralForCausalLM", "llama", true, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS},
    {"GraniteForCausalLM", "granite", true, false, false, false, "silu", 1e4, true, .experts = NO_EXPERTS},
    {"Qwen2ForCausalLM", "qwen2", false, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1},
    {"Qwen3ForCausalLM", "qwen3", false, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1},
    {"GemmaForCausalLM", "gemma", false, false, true, true, "gelu_pytorch_tanh", 1e4, false, .experts = NO_EXPERTS},
    {"Gemma2ForCausalLM", "gemma2", false, true, true, true, "gelu_pytorch_tanh", 1e4, false, .experts = NO_EXPERTS, .period = 2},
    {"Gemma3ForCausalLM", "gemma3", false, true, true, true, "gelu_pytorch_tanh", 1e6, false, .experts = NO_EXPERTS, .period = 6, .local_rope = true},
    {"Olmo2ForCausalLM", "olmo2", false, true, false, false, "silu", 1e4, false, .experts = NO_EXPERTS},
    {"MiniCPMForCausalLM", "minicpm", true, false, false, true, "silu", 1e4, false, .experts = NO_EXPERTS},
    {"Phi3ForCausalLM", "phi3", false, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS},
    {"MixtralForCausalLM", "llama", true, false, false, false, "silu", 1e6, false, .experts = EXPERTS_NORMED},
    {"Qwen2MoeForCausalLM", "qwen2moe", false, false, false, false, "silu", 1e4, false, .experts = EXPERTS_RAW, .period = 1},
    {"Qwen3MoeForCausalLM", "qwen3moe", false, false, false, false, "silu", 1e4, false, .experts = EXPERTS_NORMED, .period = 1},
    {"OlmoeForCausalLM", "olmoe", false, false, false, false, "silu", 1e4, false, .experts = EXPERTS_RAW},
    {"GraniteMoeForCausalLM", "granitemoe", true, false, false, false, "silu", 1e4, false, .experts = EXPERTS_NORMED},
    {"GraniteMoeSharedForCausalLM", "granitemoe", true, false, false, false, "silu", 1e4, false, .experts = EXPERTS_NORMED},
    {"MinistralForCausalLM", "llama", true, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS},
    {"Ministral3ForCausalLM", "mistral3", true, false, false, false, "silu", 1e6, false, .experts = NO_EXPERTS},
    {"SmolLM3ForCausalLM", "smollm3", true, false, false, true, "silu", 2e6, false, .experts = NO_EXPERTS, .period = 1},
    {"ArceeForCausalLM", "arcee", true, false, false, false, "relu2", 1e4, false, .experts = NO_EXPERTS, .period = 1, .kv_free = true},
    {"SeedOssForCausalLM", "seed_oss", false, true, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1},
    {"Exaone4ForCausalLM", "exaone4", false, true, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 4},
    {"OlmoForCausalLM", "olmo", true, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1, .kv_free = true,
     .layer_norm = true, .eps = ""},
    {"Olmo3ForCausalLM", "olmo2", false, true, false, false, "silu", 5e5, false, .experts = NO_EXPERTS, .period = 4, .kv_free = true,
     .local_rope = true},
    {"PhiForCausalLM", "phi2", false, false, false, false, "gelu_new", 1e4, false, .experts = NO_EXPERTS, .period = 1, .kv_free = true,
     .layer_norm = true, .eps = "layer_norm_eps", .act2 = "gelu_pytorch_tanh", .part = .5},
    {"GPTNeoXForCausalLM", "gptneox", false, false, false, false, "gelu", 1e4, false, .experts = NO_EXPERTS, .period = 1,
     .kv_free = true, .layer_norm = true, .eps = "layer_norm_eps", .part = .25},
    {"StableLmForCausalLM", "stablelm", false, false, false, false, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1,
     .kv_free = true, .layer_norm = true, .eps = "layer_norm_eps", .part = .25},
    {"Starcoder2ForCausalLM", "starcoder2", false, false, false, true, "gelu_pytorch_tanh", 1e4, false, .experts = NO_EXPERTS,
     .layer_norm = true, .eps = "norm_epsilon"},
    {"NemotronForCausalLM", "nemotron", false, false, true, false, "relu2", 1e4, false, .experts = NO_EXPERTS, .period = 1,
     .kv_free = true, .layer_norm = true, .eps = "norm_eps", .part = .5},
    {"CohereForCausalLM", "command-r", false, false, false, true, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 1,
     .kv_free = true, .layer_norm = true, .eps = "layer_norm_eps"},
    {"Cohere2ForCausalLM", "cohere2", false, false, false, true, "silu", 1e4, false, .experts = NO_EXPERTS, .period = 4,
     .kv_free = true, .layer_norm = true, .eps = "layer_norm_eps"},
    {"GptOssForCausalLM", "gpt-oss", false, true, false, false, "silu", 1.5e5, false, .experts = EXPERTS_NORMED, .period = 2},
};

// ---------------------------------------------------------------------------------------------------------------
// Taking the JSON apart. Objects are opened two levels deep: no config says anything about the
// computation further down.

static bool add_value(struct hf_config *c, const char *outer, const char *key, struct json *j,
                      struct err *err) {
    if (c->n == VALUES_MAX) return err_set(err, "has more than %d values", VALUES_MAX);
    struct hf_value v = {.path_at = c->paths.len, .kind = json_peek(j)};
    v.at = j->at; // behind the blanks that peek skipped
    text_fmt(&c->paths, "%s%s%s", outer ? outer : "", outer ? "." : "", key);
    v.path_n = c->paths.len - v.path_at;
    struct json whole = *j;
    if (!json_skip(&whole)) return json_skip(j); // leaves the sticky error in j
    v.n = (size_t)(whole.at - v.at);
    mem_grow((void **)&c->values, &c->cap, c->n + 1, sizeof v, "values of a config");
    c->values[c->n++] = v;
    return true;
}

static bool parse_object(struct hf_config *c, struct json *j, const char *outer, struct err *err,
                         bool *told) {
    char key[160], path[330];
    if (!json_object(j)) return false;
    while (json_key(j, key, sizeof key)) {
        if (!add_value(c, outer, key, j, err)) return *told = !j->bad, false;
        snprintf(path, sizeof path, "%s%s%s", outer ? outer : "", outer ? "." : "", key);
        bool deep = outer && strchr(outer, '.');
        if (json_peek(j) == JSON_OBJECT && !deep) {
            if (!parse_object(c, j, path, err, told)) return false; // at most three levels
        } else if (!json_skip(j)) {
            return false;
        }
    }
    return !j->bad;
}

static struct span path_of(const struct hf_config *c, const struct hf_value *v) {
    return (struct span){c->paths.data + v->path_at, v->path_n};
}

bool hf_config_parse(struct hf_config *c, struct err *err) {
    struct json j;
    bool told = false;
    json_open(&j, c->bytes.data, c->bytes.len);
    parse_object(c, &j, NULL, err, &told);
    if (told || !json_done(&j, err)) return false;
    struct name_row *rows = mem_array(c->n, sizeof *rows, "index of a config");
    for (size_t i = 0; i < c->n; i++) {
        struct span path = path_of(c, &c->values[i]);
        rows[i] = (struct name_row){path.p, path.n, i};
    }
    size_t twice;
    char shown[SHOWN];
    name_index_open(&c->index, rows, c->n, &twice);
    return twice == c->n ||
           err_set(err, "'%s' is there twice",
                   span_shown(path_of(c, &c->values[twice]), shown, sizeof shown));
}

void hf_config_free(struct hf_config *c) {
    text_free(&c->bytes);
    text_free(&c->paths);
    mem_free(c->values);
    name_index_close(&c->index);
    *c = (struct hf_config){0};
}

struct hf_value *hf_find(struct hf_config *c, const char *path) {
    size_t i = name_index_find(&c->index, path, strlen(path), c->n);
    if (i == c->n) return NULL;
    c->values[i].used = true;
    return c->values[i].kind == JSON_NULL ? NULL : &c->values[i];
}

static struct json open_value(const struct hf_value *v) {
    struct json j;
    json_open(&j, v->at, v->n);
    return j;
}

static bool absent(const char *path, bool required, struct err *err) {
    return !required || err_set(err, "'%s' is missing, which this model needs", path);
}

bool hf_int(struct hf_config *c, const char *path, bool required, int64_t min, int64_t max,
            int64_t *value, struct err *err) {
    struct hf_value *v = hf_find(c, path);
    if (!v) return absent(path, required, err);
    struct json j = open_value(v);
    int64_t x;
    if (!json_integer(&j, &x)) return err_set(err, "'%s' is no integer", path);
    if (x < min || x > max)
        return err_set(err, "'%s' is %" PRId64 ", expected %" PRId64 " to %" PRId64, path, x, min,
                       max);
    *value = x;
    return true;
}

bool hf_real(struct hf_config *c, const char *path, bool required, double min, double max,
             double *value, struct err *err) {
    struct hf_value *v = hf_find(c, path);
    if (!v) return absent(path, required, err);
    struct json j = open_value(v);
    double x;
    if (!json_number(&j, &x)) return err_set(err, "'%s' is no number", path);
    if (!(x >= min && x <= max))
        return err_set(err, "'%s' is %g, expected %g to %g", path, x, min, max);
    *value = x;
    return true;
}

bool hf_bool(struct hf_config *c, const char *path, bool *value, struct err *err) {
    struct hf_value *v = hf_find(c, path);
    if (!v) return true;
    struct json j = open_value(v);
    return json_bool(&j, value) || err_set(err, "'%s' is neither true nor false", path);
}

bool hf_text(struct hf_config *c, const char *path, struct text *value, struct err *err) {
    struct hf_value *v = hf_find(c, path);
    if (!v) return true;
    struct json j = open_value(v);
    return json_string(&j, value) || err_set(err, "'%s' is no text", path);
}

// The text must be one of the two (b may be NULL) or absent.
static bool expect_text(struct hf_config *c, const char *path, const char *a, const char *b,
                        struct err *err) {
    struct text t = {0};
    char shown[SHOWN];
    bool good = hf_text(c, path, &t, err);
    if (good && t.data && strcmp(t.data, a) && (!b || strcmp(t.data, b)))
        good = err_set(err, "'%s' is '%s', expected '%s': not supported", path,
                       span_shown((struct span){t.data, t.len}, shown, sizeof shown), a);
    text_free(&t);
    return good;
}

// ---------------------------------------------------------------------------------------------------------------
// What may stand in a config without touching the forward pass: names, training, generation
// defaults, loading.

static const char *const harmless[] = {
    "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_name_or_path", "add_cross_attention",
    "architectures", "attention_dropout", "attn_implementation", "auto_map", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "cache_implementation", "chunk_size_feed_forward",
    "classifier_dropout", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range",
    "is_decoder", "is_encoder_decoder", "is_llama_config", "label2id", "length_penalty", "max_length", "min_length",
    "model_type", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "pruned_heads", "remove_invalid_values", "repetition_penalty", "resid_pdrop", "embd_pdrop", "return_dict",
    "return_dict_in_generate", "rope_interleaved", "router_aux_loss_coef", "output_router_logits", "sep_token_id", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k",
    "top_p", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
    "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "vocab_size",
    "max_window_layers", "hidden_dropout", "residual_dropout", "embedding_dropout",
    "experts_per_token", "initial_context_length", // repeated by gpt-oss "attention_probs_dropout_prob", "hidden_dropout_prob",
    "attn_pdrop", "keys_to_ignore_at_inference", "base_model_tp_plan", "neftune_noise_alpha", "router_jitter_noise", "input_jitter_noise",
};

static bool is_harmless(const char *path, size_t n) {
    const char *dot = memchr(path, '.', n);
    if (dot) n = (size_t)(dot - path); // what lies in a harmless object is harmless
    for (size_t i = 0; i < COUNT_OF(harmless); i++)
        if (strlen(harmless[i]) == n && !memcmp(harmless[i], path, n)) return true;
    return false;
}

static bool refuse_unknown(const struct hf_config *c, const struct hf_family *family,
                           struct err *err) {
    for (size_t i = 0; i < c->n; i++) {
        const struct hf_value *v = &c->values[i];
        struct span path = path_of(c, v);
        bool off = v->kind == JSON_NULL || v->kind == JSON_FALSE;
        bool empty = v->kind == JSON_OBJECT || (v->kind == JSON_ARRAY && v->n <= 2);
        if (v->used || off || is_harmless(path.p, path.n)) continue;
        if (empty && !span_is(path, "quantization_config")) continue; // the members of an object follow
        char name[SHOWN], value[48];
        span_shown(path, name, sizeof name);
        span_shown((struct span){v->at, v->n}, value, sizeof value);
        if (span_is(path, "quantization_config"))
            return err_set(err, "'quantization_config': weights quantized for other programs are "
                                "not supported, take the unquantized model");
        return err_set(err,
                       "'%s' is %s, which this program does not know for %s: it may change what "
                       "the model computes, so the model is not run without it",
                       name, value, family->class);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Keys of the architecture.

struct keys {
    struct hf_config *c;
    struct hf_model *m;
    struct key_text *out;
    struct err *err;
    char name[96];
};

static const char *arch_key(struct keys *k, const char *rest) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->m->family->arch, rest);
    return k->name;
}
static void put_int(struct keys *k, const char *rest, int64_t x) {
    key_u32(k->out, arch_key(k, rest), x);
}
static void put_real(struct keys *k, const char *rest, double x) {
    key_f32(k->out, arch_key(k, rest), x);
}

static bool put_shape(struct keys *k) {
    struct hf_model *m = k->m;
    int64_t F = 0, ctx = 0;
    bool free = m->family->kv_free || !strcmp(m->family->class, "LlamaForCausalLM");
    if (!hf_int(k->c, "hidden_size", true, 1, 1 << 17, &m->C, k->err) ||
        !hf_int(k->c, "num_hidden_layers", true, 1, 1024, &m->L, k->err) ||
        !hf_int(k->c, "num_attention_heads", true, 1, 1024, &m->H, k->err) ||
        !hf_int(k->c, "intermediate_size", true, 1, 1 << 20, &F, k->err) ||
        !hf_int(k->c, "max_position_embeddings", true, 1, 1 << 24, &ctx, k->err) ||
        !hf_int(k->c, "vocab_size", true, 1, 1 << 22, &m->V, k->err))
        return false;
    m->G = m->H;
    if (!hf_int(k->c, "num_key_value_heads", !free, 1, 1024, &m->G, k->err)) return false;
    m->D = m->C / m->H;
    if (!hf_int(k->c, "head_dim", m->family->norm_adds_one && !m->family->layer_norm, 1, 4096, &m->D, k->err)) return false;
    if (m->D < 2 || m->D % 2)
        return err_set(k->err, "the head size is %" PRId64 ", expected an even number", m->D);
    double part = m->family->part > 0 ? m->family->part : 1;
    if (!hf_real(k->c, "rotary_pct", false, 0, 1, &part, k->err) ||
        !hf_real(k->c, "partial_rotary_factor", false, 0, 1, &part, k->err) ||
        !hf_real(k->c, "rope_parameters.partial_rotary_factor", false, 0, 1, &part, k->err))
        return false;
    int64_t turned = m->turned = (int64_t)((double)m->D * part);
    if (part != 1 && (m->family->adjacent || turned < 2 || turned % 2))
        return err_set(k->err, "'partial_rotary_factor' is %g: rope on a part of a head is not "
                               "supported for %s", part, m->family->class);
    put_int(k, "context_length", ctx);
    put_int(k, "embedding_length", m->C);
    put_int(k, "block_count", m->L);
    put_int(k, "feed_forward_length", F);
    put_int(k, "attention.head_count", m->H);
    put_int(k, "attention.head_count_kv", m->G);
    put_int(k, "attention.key_length", m->D);
    put_int(k, "attention.value_length", m->D);
    put_int(k, "rope.dimension_count", turned);
    put_int(k, "vocab_size", m->V);
    return true;
}

#define AT(member) (snprintf(p, sizeof p, "%s.%s", at, member), p)

// Llama 3: becomes divisors of the frequencies.
static bool put_llama3(struct keys *k, const char *at, double factor, int64_t ctx) {
    struct hf_model *m = k->m;
    char p[96];
    m->llama3_factor = factor;
    m->llama3_ctx = ctx;
    if (!hf_real(k->c, AT("low_freq_factor"), true, 1e-3, 1e6, &m->llama3_low, k->err) ||
        !hf_real(k->c, AT("high_freq_factor"), true, 1e-3, 1e6, &m->llama3_high, k->err))
        return false;
    return m->llama3_high > m->llama3_low ||
           err_set(k->err, "%s: high_freq_factor %g is not above low_freq_factor %g", at, m->llama3_high, m->llama3_low);
}

// YaRN's ramp, and what is turned grows by .1 ln(factor) + 1 (Peng et al. 2023, eq. 22) unless the config says otherwise.
static bool put_yarn(struct keys *k, const char *at, double factor) {
    char p[96];
    double fast = 32, slow = 1, usual = .1 * log(factor) + 1, x = usual, mscale = 0, all = 0;
    bool truncate = true;
    if (!hf_real(k->c, AT("beta_fast"), false, 0, 1e6, &fast, k->err) ||
        !hf_real(k->c, AT("beta_slow"), false, 0, 1e6, &slow, k->err) ||
        !hf_real(k->c, AT("mscale"), false, 0, 1e3, &mscale, k->err) ||
        !hf_real(k->c, AT("mscale_all_dim"), false, 0, 1e3, &all, k->err))
        return false;
    if (mscale > 0 && all > 0) x = (.1 * mscale * log(factor) + 1) / (.1 * all * log(factor) + 1);
    if (!hf_real(k->c, AT("attention_factor"), false, 1e-3, 1e3, &x, k->err) ||
        !hf_bool(k->c, AT("truncate"), &truncate, k->err))
        return false;
    put_real(k, "rope.scaling.yarn_beta_fast", fast);
    put_real(k, "rope.scaling.yarn_beta_slow", slow);
    if (!strcmp(k->m->family->arch, "mistral3")) {
        double beta = 0;
        int64_t ctx;
        if (!hf_real(k->c, AT("llama_4_scaling_beta"), false, 0, 1e3, &beta, k->err) ||
            !hf_int(k->c, AT("max_position_embeddings"), false, 1, 1 << 24, &ctx, k->err)) // says again what is outside
            return false;
        put_real(k, "attention.temperature_scale", beta);
    }
    if (!strcmp(k->m->family->arch, "mistral3") && mscale == 1 && all > 0) // as its files have it
        put_real(k, "rope.scaling.yarn_log_multiplier", all);
    else if (fabs(x - usual) > 1e-6) put_real(k, "rope.scaling.attn_factor", x / usual);
    bool expected = strcmp(k->m->family->arch, "gpt-oss") != 0;
    return truncate == expected ||
           err_set(k->err, "'%s' is %s: a YaRN that begins %s pairs is not supported for %s", AT("truncate"),
                   truncate ? "true" : "false", truncate ? "at" : "between", k->m->family->class);
}

// LongRoPE (Ding et al. 2024): two arrays of divisors become tensors; what is turned grows with the stretch of the
// context unless the config says otherwise.
static bool put_long(struct keys *k, const char *at, int64_t ctx, int64_t original) {
    char p[96];
    double stretch = (double)ctx / (double)original, x;
    static const char *const names[] = {"short_factor", "long_factor"};
    for (int i = 0; i < 2; i++) {
        k->m->long_factors[i] = hf_find(k->c, AT(names[i]));
        if (!k->m->long_factors[i]) return err_set(k->err, "'%s' is missing, which this rope needs", AT(names[i]));
    }
    if (!hf_real(k->c, AT("factor"), false, 1e-6, 1e6, &stretch, k->err)) return false;
    x = stretch <= 1 ? 1 : sqrt(1 + log(stretch) / log((double)original));
    if (!hf_real(k->c, AT("attention_factor"), false, 1e-3, 1e3, &x, k->err)) return false;
    if (x != 1) put_real(k, "rope.scaling.attn_factor", x);
    key_text_add(k->out, arch_key(k, "rope.scaling.type"), "longrope", 8);
    put_int(k, "rope.scaling.original_context_length", original);
    return true;
}

// Rope scaling of the object at `at`.
static bool put_scaling(struct keys *k, const char *at, const char *type) {
    char p[96];
    double factor = 1;
    int64_t ctx = 0, original = 0;
    bool yarn = !strcmp(type, "yarn"), llama3 = !strcmp(type, "llama3"), dynamic = !strcmp(type, "dynamic");
    bool by_length = !strcmp(type, "longrope") || !strcmp(type, "su"); // su: its first name
    if (!strcmp(type, "default")) return true;
    if (strcmp(type, "linear") && !yarn && !llama3 && !dynamic && !by_length)
        return err_set(k->err, "rope scaling of type '%.40s' is not supported", type);
    if (!hf_int(k->c, "max_position_embeddings", true, 1, 1 << 24, &ctx, k->err) ||
        !hf_int(k->c, "original_max_position_embeddings", false, 1, 1 << 24, &original, k->err) ||
        !hf_int(k->c, AT("original_max_position_embeddings"), llama3 || yarn || (by_length && !original), 1, 1 << 24,
                &original, k->err))
        return false;
    if (by_length) return put_long(k, at, ctx, original);
    if (!hf_real(k->c, AT("factor"), true, 1, 1e6, &factor, k->err)) return false;
    if (llama3) return put_llama3(k, at, factor, original);
    key_text_add(k->out, arch_key(k, "rope.scaling.type"), type, strlen(type));
    put_real(k, "rope.scaling.factor", factor);
    if (original && !dynamic) put_int(k, "rope.scaling.original_context_length", original);
    return !yarn || put_yarn(k, at, factor);
}
#undef AT

static bool rope_type(struct keys *k, const char *at, struct text *type) {
    char p[96], old[96];
    snprintf(p, sizeof p, "%s.rope_type", at);
    snprintf(old, sizeof old, "%s.type", at);
    text_clear(type);
    text_str(type, "default");
    return hf_text(k->c, old, type, k->err) && hf_text(k->c, p, type, k->err);
}

static bool put_rope(struct keys *k) {
    struct hf_model *m = k->m;
    const char *new = "rope_parameters", *both = "rope_parameters.full_attention";
    const char *local = "rope_parameters.sliding_attention";
    bool layered = hf_find(k->c, both) != NULL, has_new = hf_find(k->c, new) != NULL;
    bool own = m->family->local_rope, gemma3 = !strcmp(m->family->arch, "gemma3");
    const char *at = layered ? both : has_new ? new : "rope_scaling";
    char p[96];
    struct text type = {0};
    double theta = m->family->theta, local_theta = 1e4;
    if (hf_find(k->c, "rope_scaling") && has_new)
        return err_set(k->err, "both 'rope_scaling' and 'rope_parameters' are there, one is expected");
    if (layered && !own)
        return err_set(k->err, "'%s': rope that differs from layer to layer is not supported for %s",
                       both, m->family->class);
    snprintf(p, sizeof p, "%s.rope_theta", at);
    bool good = hf_real(k->c, "rotary_emb_base", false, 1, 1e12, &theta, k->err) &&
                hf_real(k->c, "rope_theta", false, 1, 1e12, &theta, k->err) &&
                hf_real(k->c, p, false, 1, 1e12, &theta, k->err);
    put_real(k, "rope.freq_base", theta);
    m->theta = theta;
    good = good && rope_type(k, at, &type) && put_scaling(k, at, type.data);
    if (good && own) {
        if (!gemma3) local_theta = theta;
        snprintf(p, sizeof p, "%s.rope_theta", local);
        good = hf_real(k->c, "rope_local_base_freq", false, 1, 1e12, &local_theta, k->err) &&
               hf_real(k->c, p, false, 1, 1e12, &local_theta, k->err) && rope_type(k, local, &type) &&
               (!strcmp(type.data, "default") ||
                err_set(k->err, "'%s': stretched rope in sliding layers is not supported", local));
        put_real(k, "rope.freq_base_swa", local_theta);
    }
    text_free(&type);
    return good;
}

// layer_types lists "full_attention" or "sliding_attention" per layer. What is not the pattern of the family is told by
// GGUF's array, which only families with a pattern have.
static bool put_layer_types(struct keys *k, int64_t pattern, bool window) {
    struct hf_value *v = hf_find(k->c, "layer_types");
    if (!v) return true;
    struct json j = open_value(v);
    struct text type = {0};
    bool good = json_array(&j), usual = true;
    int64_t l = 0, slides[1024] = {0};
    for (; good && l < k->m->L && json_item(&j); l++) {
        good = json_string(&j, &type);
        slides[l] = good && !strcmp(type.data, "sliding_attention");
        good = good && (slides[l] || !strcmp(type.data, "full_attention"));
        usual = usual && slides[l] == (window && (pattern == 0 || (l + 1) % pattern));
    }
    text_free(&type);
    good = good && l == k->m->L && !json_item(&j) && !j.bad && (usual || (window && pattern > 1));
    if (good && !usual) key_i32s(k->out, arch_key(k, "attention.sliding_window_pattern"), slides, (size_t)l);
    return good || err_set(k->err, "'layer_types' is not the pattern of this family (entry %" PRId64 " of %" PRId64
                                   "): not supported", l, k->m->L);
}

static bool put_window(struct keys *k) {
    const char *arch = k->m->family->arch;
    int64_t window = 0, pattern = k->m->family->period;
    bool qwen = !strncmp(arch, "qwen", 4), use = !qwen;
    if (!hf_int(k->c, "sliding_window", false, 0, 1 << 30, &window, k->err) ||
        !hf_bool(k->c, "use_sliding_window", &use, k->err))
        return false;
    if (qwen && use)
        return err_set(k->err, "'use_sliding_window' is true: sliding windows in some layers "
                               "of %s are not supported", k->m->family->class);
    if (!use) window = 0;
    hf_find(k->c, "sliding_window_pattern"), hf_find(k->c, "_sliding_window_pattern"); // mean nothing without a window
    if (pattern > 2 && window) {
        if (!hf_int(k->c, "sliding_window_pattern", false, 1, 1024, &pattern, k->err) ||
            !hf_int(k->c, "_sliding_window_pattern", false, 1, 1024, &pattern, k->err))
            return false;
        if (pattern != k->m->family->period) put_int(k, "attention.sliding_window_pattern", pattern);
    }
    if (pattern > 1 && !window && strcmp(arch, "exaone4"))
        return err_set(k->err, "'sliding_window' is missing, which this model needs");
    if (window) put_int(k, "attention.sliding_window", window);
    return put_layer_types(k, pattern, window > 0);
}

// muP in the dialect of MiniCPM (Hu et al. 2024); the logits are divided by width over base width.
static bool put_minicpm(struct keys *k) {
    double embedding = 1, depth = 1, base = 0;
    if (!hf_real(k->c, "scale_emb", true, 1e-6, 1e6, &embedding, k->err) ||
        !hf_real(k->c, "scale_depth", true, 1e-6, 1e6, &depth, k->err) ||
        !hf_real(k->c, "dim_model_base", true, 1, 1e6, &base, k->err))
        return false;
    put_real(k, "embedding_scale", embedding);
    put_real(k, "residual_scale", depth / sqrt((double)k->m->L));
    put_real(k, "logit_scale", (double)k->m->C / base);
    return true;
}

// A number that the family has built in: absent, or this.
static bool expect_real(struct keys *k, const char *path, double expected) {
    double x = expected;
    if (!hf_real(k->c, path, false, -1e30, 1e30, &x, k->err)) return false;
    return x == expected || err_set(k->err, "'%s' is %g, expected %g: not supported", path, x, expected);
}

// Every layer has experts, and their weights are normed or not as the family always does.
static bool put_experts(struct keys *k) {
    struct hf_model *m = k->m;
    bool switched = !strncmp(m->family->arch, "qwen", 4) || !strcmp(m->family->arch, "olmoe");
    bool expected = m->family->experts == EXPERTS_NORMED, oss = !strcmp(m->family->arch, "gpt-oss");
    bool norm = switched ? false : expected; // the classes that have the switch are born with false
    int64_t used = 0, F = 0, shared = 0, step = 1;
    const char *count = hf_find(k->c, "num_local_experts") ? "num_local_experts" : "num_experts"; // either name
    if (!hf_int(k->c, count, true, 1, 4096, &m->E, k->err) ||
        !hf_int(k->c, "num_experts_per_tok", true, 1, m->E, &used, k->err) ||
        !hf_int(k->c, "moe_intermediate_size", false, 1, 1 << 20, &F, k->err) ||
        !hf_int(k->c, "shared_expert_intermediate_size", false, 0, 1 << 20, &shared, k->err) ||
        !hf_int(k->c, "shared_intermediate_size", false, 0, 1 << 20, &shared, k->err) ||
        !hf_int(k->c, "decoder_sparse_step", false, 1, 1024, &step, k->err) ||
        !hf_bool(k->c, "norm_topk_prob", &norm, k->err))
        return false;
    if (step != 1) return err_set(k->err, "'decoder_sparse_step' is %" PRId64 ": layers without experts among those "
                                          "with experts are not supported", step);
    if (norm != expected)
        return err_set(k->err, "'norm_topk_prob' is %s: %s is supported with %s only", norm ? "true" : "false",
                       m->family->class, expected ? "true" : "false");
    if (oss && (!expect_real(k, "swiglu_limit", 7) || !expect_real(k, "swiglu_alpha", 1.702) ||
                !hf_int(k->c, "intermediate_size", true, 1, 1 << 20, &F, k->err)))
        return false;
    put_int(k, "expert_count", m->E);
    put_int(k, "expert_used_count", used);
    if (F) put_int(k, "expert_feed_forward_length", F);
    if (shared) put_int(k, "expert_shared_feed_forward_length", shared);
    return true;
}

static bool put_norm(struct keys *k) {
    const struct hf_family *f = k->m->family;
    const char *name = f->eps ? f->eps : "rms_norm_eps";
    double eps = 1e-5; // OLMo 1 has no key for it
    if (*name && !hf_real(k->c, name, true, 1e-30, 1, &eps, k->err)) return false;
    put_real(k, f->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", eps);
    return true;
}

// Switches of the families with LayerNorm: which branch reads what, the factor of the logits, clamped projections.
static bool put_layer_norm_families(struct keys *k) {
    const char *arch = k->m->family->arch;
    bool gptneox = !strcmp(arch, "gptneox"), cohere = !strcmp(arch, "command-r") || !strcmp(arch, "cohere2");
    bool parallel = gptneox;
    double scale = .0625, clip = 0;
    if (gptneox || !strcmp(arch, "stablelm")) {
        if (!hf_bool(k->c, "use_parallel_residual", &parallel, k->err)) return false;
        key_bool(k->out, arch_key(k, "use_parallel_residual"), parallel);
    }
    if (cohere) {
        if (!hf_real(k->c, "logit_scale", false, 1e-6, 1e6, &scale, k->err)) return false;
        put_real(k, "logit_scale", scale);
    }
    if (!strcmp(arch, "olmo")) {
        if (!hf_real(k->c, "clip_qkv", false, 0, 1e6, &clip, k->err)) return false;
        if (clip > 0) put_real(k, "attention.clamp_kqv", clip);
    }
    return true;
}

// SmolLM 3: no_rope_layers has a 0 for each layer without rope, which is every fourth.
static bool check_rope_layers(struct keys *k) {
    int64_t interval = 4, has = 0, l = 0;
    if (!hf_int(k->c, "no_rope_layer_interval", false, 1, 1024, &interval, k->err)) return false;
    struct hf_value *v = hf_find(k->c, "no_rope_layers");
    if (!v) return interval == 4 || err_set(k->err, "'no_rope_layer_interval' is %" PRId64 ", expected 4", interval);
    struct json j = open_value(v);
    bool good = json_array(&j);
    for (; good && json_item(&j); l++) good = json_integer(&j, &has) && has == ((l + 1) % 4 != 0);
    return (good && !j.bad && l == k->m->L) ||
           err_set(k->err, "'no_rope_layers' is not the pattern of this family (entry %" PRId64 " of %" PRId64
                           "): every fourth layer without rope is supported", l, k->m->L);
}

// What only some families have.
static bool put_particular(struct keys *k) {
    const char *arch = k->m->family->arch;
    double cap = 0, scalar = (double)k->m->D, one;
    if (!put_norm(k)) return false;
    if (k->m->family->layer_norm && !put_layer_norm_families(k)) return false;
    if (!strcmp(arch, "smollm3") && !check_rope_layers(k)) return false;
    if (!strncmp(arch, "granite", 7)) {
        static const char *const rows[][2] = {{"embedding_multiplier", "embedding_scale"},
                                              {"attention_multiplier", "attention.scale"},
                                              {"residual_multiplier", "residual_scale"},
                                              {"logits_scaling", "logit_scale"}};
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            one = 1;
            if (!hf_real(k->c, rows[i][0], false, 1e-12, 1e6, &one, k->err)) return false;
            put_real(k, rows[i][1], one);
        }
    }
    if (!strcmp(arch, "minicpm") && !put_minicpm(k)) return false;
    if (k->m->family->experts && !put_experts(k)) return false;
    if (strcmp(arch, "gemma2") && strcmp(arch, "gemma3")) return true;
    static const char *const caps[][2] = {{"attn_logit_softcapping", "attn_logit_softcapping"},
                                          {"final_logit_softcapping", "final_logit_softcapping"}};
    for (size_t i = 0; i < COUNT_OF(caps); i++) {
        cap = 0;
        if (!hf_real(k->c, caps[i][0], false, 0, 1e6, &cap, k->err)) return false;
        if (cap > 0 || !strcmp(arch, "gemma2")) put_real(k, caps[i][1], cap);
    }
    if (!hf_real(k->c, "query_pre_attn_scalar", false, 1, 1e6, &scalar, k->err)) return false;
    if (scalar != (double)k->m->D) put_real(k, "attention.scale", 1 / sqrt(scalar));
    bool bidirectional = false;
    if (!hf_bool(k->c, "use_bidirectional_attention", &bidirectional, k->err)) return false;
    return !bidirectional || err_set(k->err, "'use_bidirectional_attention' is true: not supported");
}

// Switches that must stand as the family has them. Biases show as tensors, which are read or refused
// by name.
static bool check_switches(struct keys *k) {
    static const char *const shown_by_tensors[] = {"attention_bias", "mlp_bias", "qkv_bias", "use_qk_norm",
                                                    "use_bias", "use_qkv_bias", "attention_out_bias",
                                                    "qk_layernorm"};
    bool x = false;
    for (size_t i = 0; i < COUNT_OF(shown_by_tensors); i++)
        if (!hf_bool(k->c, shown_by_tensors[i], &x, k->err)) return false;
    k->m->tied = k->m->family->tied;
    const char *act = k->m->family->act;
    const char *act2 = !strncmp(k->m->family->arch, "gemma", 5) ? "gelu" : k->m->family->act2;
    // Gemma 1 says "gelu" and means the tanh form, which its later hidden_activation names.
    return hf_bool(k->c, "tie_word_embeddings", &k->m->tied, k->err) &&
           expect_text(k->c, "hidden_act", act, act2, k->err) &&
           expect_text(k->c, "hidden_activation", act, NULL, k->err) &&
           expect_text(k->c, "position_embedding_type", "rope", NULL, k->err) &&
           expect_text(k->c, "normalization_function", "rmsnorm", NULL, k->err);
}

static const struct hf_family *find_family(struct hf_config *c, struct err *err) {
    struct hf_value *v = hf_find(c, "architectures");
    struct text class = {0};
    const struct hf_family *found = NULL;
    bool named = false;
    if (v) {
        struct json j = open_value(v);
        named = json_array(&j) && json_item(&j) && json_string(&j, &class);
    }
    for (size_t i = 0; named && i < COUNT_OF(families); i++)
        if (!strcmp(families[i].class, class.data)) found = &families[i];
    if (!found && !named) err_set(err, "'architectures' names no class of models");
    if (!found && named) {
        struct text names = {0};
        char shown[SHOWN];
        for (size_t i = 0; i < COUNT_OF(families); i++)
            text_fmt(&names, "%s%s", i ? ", " : "", families[i].class);
        err_set(err, "'%s' is not known; known are %s",
                span_shown((struct span){class.data, class.len}, shown, sizeof shown), names.data);
        text_free(&names);
    }
    text_free(&class);
    return found;
}

bool hf_config_keys(struct hf_config *c, struct hf_model *m, struct key_text *out, struct err *err) {
    *m = (struct hf_model){.family = find_family(c, err)};
    if (!m->family) return false;
    struct keys k = {.c = c, .m = m, .out = out, .err = err};
    key_text_add(out, "general.architecture", m->family->arch, strlen(m->family->arch));
    return put_shape(&k) && check_switches(&k) && put_particular(&k) && put_rope(&k) &&
           put_window(&k) && refuse_unknown(c, m->family, err);
}

// ---------------------------------------------------------------------------------------------------------------
// Names of tensors.

enum { BOTH, PLAIN, SANDWICH, EXPERTS }; // which families have a row

static const struct rule {
    const char *hf, *gguf;
    bool per_layer;
    int when;
    enum hf_change change;
} rules[] = {
    {"embed_tokens.weight", "token_embd.weight", false, BOTH, HF_AS_IS},
    {"norm.weight", "output_norm.weight", false, BOTH, HF_NORM},
    {"lm_head.weight", "output.weight", false, BOTH, HF_AS_IS},
    {"input_layernorm.weight", "attn_norm.weight", true, BOTH, HF_NORM},
    {"self_attn.q_proj.weight", "attn_q.weight", true, BOTH, HF_ROWS_Q},
    {"self_attn.k_proj.weight", "attn_k.weight", true, BOTH, HF_ROWS_K},
    {"self_attn.v_proj.weight", "attn_v.weight", true, BOTH, HF_AS_IS},
    {"self_attn.o_proj.weight", "attn_output.weight", true, BOTH, HF_AS_IS},
    {"self_attn.q_proj.bias", "attn_q.bias", true, BOTH, HF_ROWS_Q},
    {"self_attn.k_proj.bias", "attn_k.bias", true, BOTH, HF_ROWS_K},
    {"self_attn.v_proj.bias", "attn_v.bias", true, BOTH, HF_AS_IS},
    {"self_attn.o_proj.bias", "attn_output.bias", true, BOTH, HF_AS_IS},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", true, BOTH, HF_NORM},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", true, BOTH, HF_NORM},
    {"self_attn.rotary_emb.inv_freq", "", true, BOTH, HF_SKIP},
    {"post_attention_layernorm.weight", "ffn_norm.weight", true, PLAIN, HF_NORM},
    {"post_attention_layernorm.weight", "post_attention_norm.weight", true, SANDWICH, HF_NORM},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight", true, SANDWICH, HF_NORM},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", true, SANDWICH, HF_NORM},
    {"mlp.gate_proj.weight", "ffn_gate.weight", true, BOTH, HF_AS_IS},
    {"mlp.up_proj.weight", "ffn_up.weight", true, BOTH, HF_AS_IS},
    {"mlp.down_proj.weight", "ffn_down.weight", true, BOTH, HF_AS_IS},
    {"mlp.gate_proj.bias", "ffn_gate.bias", true, BOTH, HF_AS_IS},
    {"mlp.up_proj.bias", "ffn_up.bias", true, BOTH, HF_AS_IS},
    {"mlp.down_proj.bias", "ffn_down.bias", true, BOTH, HF_AS_IS},
    {"self_attn.qkv_proj.weight", "attn_qkv.weight", true, BOTH, HF_AS_IS}, // Phi 3: queries, keys, values
    {"mlp.gate_up_proj.weight", "ffn_up.weight", true, BOTH, HF_AS_IS},     // and gate, up in one
    {"mlp.gate.weight", "ffn_gate_inp.weight", true, EXPERTS, HF_AS_IS},
    {"mlp.experts.*.gate_proj.weight", "ffn_gate_exps.weight", true, EXPERTS, HF_EXPERT},
    {"mlp.experts.*.up_proj.weight", "ffn_up_exps.weight", true, EXPERTS, HF_EXPERT},
    {"mlp.experts.*.down_proj.weight", "ffn_down_exps.weight", true, EXPERTS, HF_EXPERT},
    {"mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", true, EXPERTS, HF_AS_IS},
    {"mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", true, EXPERTS, HF_AS_IS},
    {"mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", true, EXPERTS, HF_AS_IS},
    {"mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", true, EXPERTS, HF_VECTOR},
    {"block_sparse_moe.gate.weight", "ffn_gate_inp.weight", true, EXPERTS, HF_AS_IS}, // Mixtral
    {"block_sparse_moe.experts.*.w1.weight", "ffn_gate_exps.weight", true, EXPERTS, HF_EXPERT},
    {"block_sparse_moe.experts.*.w3.weight", "ffn_up_exps.weight", true, EXPERTS, HF_EXPERT},
    {"block_sparse_moe.experts.*.w2.weight", "ffn_down_exps.weight", true, EXPERTS, HF_EXPERT},
    {"block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", true, EXPERTS, HF_AS_IS}, // GraniteMoe
    {"block_sparse_moe.input_linear.weight", "ffn_gate_exps.weight", true, EXPERTS, HF_HALVES},
    {"block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", true, EXPERTS, HF_AS_IS},
    {"shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", true, EXPERTS, HF_HALVES}, // GraniteMoeShared
    {"shared_mlp.output_linear.weight", "ffn_down_shexp.weight", true, EXPERTS, HF_AS_IS},
    {"mlp.router.weight", "ffn_gate_inp.weight", true, EXPERTS, HF_AS_IS}, // gpt-oss
    {"mlp.router.bias", "ffn_gate_inp.bias", true, EXPERTS, HF_AS_IS},
    {"mlp.experts.gate_up_proj", "ffn_gate_exps.weight", true, EXPERTS, HF_INTERLEAVED},
    {"mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", true, EXPERTS, HF_INTERLEAVED},
    {"mlp.experts.down_proj", "ffn_down_exps.weight", true, EXPERTS, HF_TURNED},
    {"mlp.experts.down_proj_bias", "ffn_down_exps.bias", true, EXPERTS, HF_AS_IS},
    {"self_attn.sinks", "attn_sinks.weight", true, EXPERTS, HF_AS_IS},
    // Biases of LayerNorm, and the names of the families that have it.
    {"norm.bias", "output_norm.bias", false, BOTH, HF_AS_IS},
    {"lm_head.bias", "output.bias", false, BOTH, HF_AS_IS},
    {"input_layernorm.bias", "attn_norm.bias", true, BOTH, HF_AS_IS},
    {"post_attention_layernorm.bias", "ffn_norm.bias", true, PLAIN, HF_AS_IS},
    {"final_layernorm.weight", "output_norm.weight", false, BOTH, HF_AS_IS}, // Phi 1 and 2
    {"final_layernorm.bias", "output_norm.bias", false, BOTH, HF_AS_IS},
    {"self_attn.dense.weight", "attn_output.weight", true, BOTH, HF_AS_IS},
    {"self_attn.dense.bias", "attn_output.bias", true, BOTH, HF_AS_IS},
    {"mlp.fc1.weight", "ffn_up.weight", true, BOTH, HF_AS_IS},
    {"mlp.fc1.bias", "ffn_up.bias", true, BOTH, HF_AS_IS},
    {"mlp.fc2.weight", "ffn_down.weight", true, BOTH, HF_AS_IS},
    {"mlp.fc2.bias", "ffn_down.bias", true, BOTH, HF_AS_IS},
    {"mlp.c_fc.weight", "ffn_up.weight", true, BOTH, HF_AS_IS}, // StarCoder 2
    {"mlp.c_fc.bias", "ffn_up.bias", true, BOTH, HF_AS_IS},
    {"mlp.c_proj.weight", "ffn_down.weight", true, BOTH, HF_AS_IS},
    {"mlp.c_proj.bias", "ffn_down.bias", true, BOTH, HF_AS_IS},
    {"embed_in.weight", "token_embd.weight", false, BOTH, HF_AS_IS}, // GPT-NeoX
    {"embed_out.weight", "output.weight", false, BOTH, HF_AS_IS},
    {"final_layer_norm.weight", "output_norm.weight", false, BOTH, HF_AS_IS},
    {"final_layer_norm.bias", "output_norm.bias", false, BOTH, HF_AS_IS},
    {"attention.query_key_value.weight", "attn_qkv.weight", true, BOTH, HF_HEADS},
    {"attention.query_key_value.bias", "attn_qkv.bias", true, BOTH, HF_HEADS},
    {"attention.dense.weight", "attn_output.weight", true, BOTH, HF_AS_IS},
    {"attention.dense.bias", "attn_output.bias", true, BOTH, HF_AS_IS},
    {"attention.rotary_emb.inv_freq", "", true, BOTH, HF_SKIP},
    {"attention.bias", "", true, BOTH, HF_SKIP}, // the causal mask
    {"attention.masked_bias", "", true, BOTH, HF_SKIP},
    {"mlp.dense_h_to_4h.weight", "ffn_up.weight", true, BOTH, HF_AS_IS},
    {"mlp.dense_h_to_4h.bias", "ffn_up.bias", true, BOTH, HF_AS_IS},
    {"mlp.dense_4h_to_h.weight", "ffn_down.weight", true, BOTH, HF_AS_IS},
    {"mlp.dense_4h_to_h.bias", "ffn_down.bias", true, BOTH, HF_AS_IS},
};

// "layers.12.rest": the number and what follows; -1 when it does not begin so.
static int64_t layer_number(struct span *s) {
    static const char head[] = "layers.";
    size_t at = sizeof head - 1;
    int64_t l = 0;
    if (s->n <= at || memcmp(s->p, head, at)) return -1;
    size_t from = at;
    while (at < s->n && s->p[at] >= '0' && s->p[at] <= '9' && at - from < 6)
        l = l * 10 + (s->p[at++] - '0');
    bool odd = at == from || (s->p[from] == '0' && at - from > 1); // "layers.007" names no layer
    if (odd || at == s->n || s->p[at] != '.') return -1;
    *s = (struct span){s->p + at + 1, s->n - at - 1};
    return l;
}

// A '*' in the pattern stands for a number without leading zeros.
static bool matches(struct span s, const char *pattern, int64_t *number) {
    size_t at = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (at == s.n || s.p[at++] != *pattern) return false;
            continue;
        }
        size_t from = at;
        for (*number = 0; at < s.n && s.p[at] >= '0' && s.p[at] <= '9' && at - from < 6; at++)
            *number = *number * 10 + (s.p[at] - '0');
        if (at == from || (s.p[from] == '0' && at - from > 1)) return false;
    }
    return at == s.n;
}

static bool row_applies(const struct rule *r, const struct hf_family *f) {
    return r->when == BOTH || (r->when == EXPERTS ? f->experts != NO_EXPERTS : (r->when == SANDWICH) == f->sandwich);
}

bool hf_tensor_name(const struct hf_model *m, struct span hf, struct hf_place *place, struct err *err) {
    const char *prefix = strcmp(m->family->arch, "gptneox") ? "model." : "gpt_neox.";
    size_t n = strlen(prefix);
    struct span rest = hf;
    char shown[SHOWN];
    if (hf.n > n && !memcmp(hf.p, prefix, n)) rest = (struct span){hf.p + n, hf.n - n};
    int64_t layer = layer_number(&rest);
    *place = (struct hf_place){.expert = 0};
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        const struct rule *r = &rules[i];
        if (r->per_layer != (layer >= 0) || !row_applies(r, m->family) || !matches(rest, r->hf, &place->expert)) continue;
        if (layer >= m->L)
            return err_set(err, "tensor '%s' is of layer %" PRId64 ", but config.json says %" PRId64 " layers",
                           span_shown(hf, shown, sizeof shown), layer, m->L);
        if (r->change == HF_EXPERT && place->expert >= m->E)
            return err_set(err, "tensor '%s' is of expert %" PRId64 ", but config.json says %" PRId64 " experts",
                           span_shown(hf, shown, sizeof shown), place->expert, m->E);
        enum hf_change change = r->change;
        if (!m->family->adjacent && (change == HF_ROWS_Q || change == HF_ROWS_K)) change = HF_AS_IS;
        if (!m->family->norm_adds_one && change == HF_NORM) change = HF_AS_IS;
        // A tied head is the embedding, whatever the file repeats under the head's name.
        if (m->tied && !strcmp(r->hf, "lm_head.weight")) change = HF_SKIP;
        place->change = change;
        if (r->per_layer)
            snprintf(place->gguf, sizeof place->gguf, "blk.%" PRId64 ".%s", layer, r->gguf);
        else
            snprintf(place->gguf, sizeof place->gguf, "%s", r->gguf);
        return true;
    }
    return err_set(err, "tensor '%s' is not part of a %s as this program knows it",
                   span_shown(hf, shown, sizeof shown), m->family->class);
}

const struct hf_family *hf_family_of(struct span arch) {
    for (size_t i = 0; i < COUNT_OF(families); i++)
        if (families[i].written && span_is(arch, families[i].arch)) return &families[i];
    return NULL;
}

bool hf_name_of(const struct hf_family *family, const char *gguf, char hf[128],
                enum hf_change *change) {
    static const char block[] = "blk.";
    bool per_layer = !strncmp(gguf, block, sizeof block - 1);
    const char *number = gguf + sizeof block - 1, *rest = per_layer ? strchr(number, '.') : gguf;
    if (!rest) return false;
    if (per_layer) rest++;
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        const struct rule *r = &rules[i];
        if (r->per_layer != per_layer || r->change == HF_SKIP || strcmp(rest, r->gguf)) continue;
        if (!row_applies(r, family)) continue;
        *change = r->change;
        bool head = !strcmp(r->hf, "lm_head.weight");
        if (per_layer)
            snprintf(hf, 128, "model.layers.%.*s.%s", (int)(rest - 1 - number), number, r->hf);
        else
            snprintf(hf, 128, "%s%s", head ? "" : "model.", r->hf);
        return true;
    }
    return false;
}
