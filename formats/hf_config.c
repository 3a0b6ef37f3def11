// hf_config.c: what a config.json says, in GGUF's words.
//
// The words are in hf_tables.c; here is what takes more than a word. The rule that keeps results right:
// every value of the config must be read here or stand in the list of those that do not touch the
// computation. Anything else that is not null or false is refused by its name, so a feature that nobody
// here has heard of cannot be left out silently.
//
// Absent values mean what the class of that name means by them; writers drop values only when they
// equal those. Two spellings of rope are known: rope_theta + rope_scaling, and the newer
// rope_parameters that joins them. A model with eyes keeps its text part under text_config, of which
// only what differs from the class's defaults is written: those are filled in first.
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define VALUES_MAX 4096

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
    "hidden_dropout", "residual_dropout", "embedding_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob",
    "attn_pdrop", "keys_to_ignore_at_inference", "base_model_tp_plan", "neftune_noise_alpha", "router_jitter_noise", "input_jitter_noise",
    "experts_per_token", "initial_context_length", // of gpt-oss: other names of what it has
    "n_ctx", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj",
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

// The name in config.json of a number that GGUF calls so.
static const char *name_of(struct keys *k, const char *gguf) {
    return hf_number_of(k->m->family, (struct span){gguf, strlen(gguf)})->hf;
}

static bool has(const struct keys *k, uint64_t traits) { return (k->m->family->traits & traits) != 0; }

static bool put_numbers(struct keys *k) {
    for (size_t i = 0; i < hf_number_count; i++) {
        const struct hf_number *r = &hf_numbers[i];
        const char *hf = r->hf;
        if (!has(k, r->in)) continue;
        if (!strcmp(r->gguf, "expert_count") && !hf_find(k->c, hf)) // either name, whatever the class
            hf = !strcmp(hf, "num_experts") ? "num_local_experts" : "num_experts";
        bool there = hf_find(k->c, hf) != NULL;
        int64_t whole = 1;
        double real = 1;
        if (!(r->kind == HF_WHOLE ? hf_int(k->c, hf, r->presence == HF_NEEDED, (int64_t)r->min, (int64_t)r->max, &whole, k->err)
                                  : hf_real(k->c, hf, r->presence == HF_NEEDED, r->min, r->max, &real, k->err)))
            return false;
        if (!there && r->presence == HF_MAYBE) continue;
        if (r->kind == HF_WHOLE) put_int(k, r->gguf, whole);
        else put_real(k, r->gguf, real);
        if (!strcmp(r->gguf, "expert_count")) k->m->E = whole;
    }
    return true;
}

static bool put_shape(struct keys *k) {
    struct hf_model *m = k->m;
    bool gpt2 = has(k, HF_GPT2), gemma = has(k, HF_PLUS_ONE) && !has(k, HF_LAYER_NORM);
    if (!put_numbers(k) || !hf_int(k->c, name_of(k, "embedding_length"), true, 1, 1 << 17, &m->C, k->err) ||
        !hf_int(k->c, name_of(k, "block_count"), true, 1, 1024, &m->L, k->err) ||
        !hf_int(k->c, name_of(k, "attention.head_count"), true, 1, 1024, &m->H, k->err) ||
        !hf_int(k->c, "vocab_size", true, 1, 1 << 22, &m->V, k->err))
        return false;
    put_int(k, "vocab_size", m->V);
    m->G = m->H;
    m->D = m->C / m->H;
    if (gpt2) {
        if (!hf_find(k->c, "n_inner")) put_int(k, "feed_forward_length", 4 * m->C);
        return true;
    }
    if (!hf_int(k->c, "num_key_value_heads", !has(k, HF_KV_FREE), 1, 1024, &m->G, k->err)) return false;
    if (!hf_int(k->c, "head_dim", gemma, 1, 4096, &m->D, k->err)) return false;
    if (m->D < 2 || m->D % 2)
        return err_set(k->err, "the head size is %" PRId64 ", expected an even number", m->D);
    double part = m->family->part > 0 ? m->family->part : 1;
    if (!hf_real(k->c, "rotary_pct", false, 0, 1, &part, k->err) ||
        !hf_real(k->c, "partial_rotary_factor", false, 0, 1, &part, k->err) ||
        !hf_real(k->c, "rope_parameters.partial_rotary_factor", false, 0, 1, &part, k->err))
        return false;
    int64_t turned = m->turned = (int64_t)((double)m->D * part);
    if (part != 1 && (has(k, HF_ADJACENT) || turned < 2 || turned % 2))
        return err_set(k->err, "'partial_rotary_factor' is %g: rope on a part of a head is not "
                               "supported for %s", part, m->family->class);
    put_int(k, "attention.head_count_kv", m->G);
    put_int(k, "attention.key_length", m->D);
    put_int(k, "attention.value_length", m->D);
    put_int(k, "rope.dimension_count", turned);
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
    if (has(k, HF_BY_POSITION)) {
        double beta = 0;
        int64_t ctx;
        if (!hf_real(k->c, AT("llama_4_scaling_beta"), false, 0, 1e3, &beta, k->err) ||
            !hf_int(k->c, AT("max_position_embeddings"), false, 1, 1 << 24, &ctx, k->err)) // says again what is outside
            return false;
        put_real(k, "attention.temperature_scale", beta);
    }
    if (has(k, HF_BY_POSITION) && mscale == 1 && all > 0 && !hf_find(k->c, AT("attention_factor"))) // as its files have it
        put_real(k, "rope.scaling.yarn_log_multiplier", all);
    else if (fabs(x - usual) > 1e-6) put_real(k, "rope.scaling.attn_factor", x / usual);
    return truncate == !has(k, HF_GPT_OSS) ||
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
    if (!strcmp(type, "default")) { // what the context was does not matter then
        hf_find(k->c, "original_max_position_embeddings");
        return true;
    }
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
    const char *at = layered ? both : has_new ? new : "rope_scaling";
    char p[96];
    struct text type = {0};
    double theta = m->family->theta, local_theta = 1e4; // of Gemma 3; of others that of the stretched layers
    if (has(k, HF_GPT2)) return true;
    if (hf_find(k->c, "rope_scaling") && has_new)
        return err_set(k->err, "both 'rope_scaling' and 'rope_parameters' are there, one is expected");
    if (has(k, HF_STRETCHED) && !hf_find(k->c, at)) // it would mean the YaRN of the published model
        return err_set(k->err, "'rope_parameters' is missing, which this model needs");
    if (layered && !has(k, HF_LOCAL_ROPE))
        return err_set(k->err, "'%s': rope that differs from layer to layer is not supported for %s",
                       both, m->family->class);
    snprintf(p, sizeof p, "%s.rope_theta", at);
    bool good = hf_real(k->c, "rotary_emb_base", false, 1, 1e12, &theta, k->err) &&
                hf_real(k->c, "rope_theta", false, 1, 1e12, &theta, k->err) &&
                hf_real(k->c, p, false, 1, 1e12, &theta, k->err);
    put_real(k, "rope.freq_base", theta);
    m->theta = theta;
    if (!has(k, HF_PLUS_ONE)) local_theta = theta;
    good = good && rope_type(k, at, &type) && put_scaling(k, at, type.data);
    if (good && has(k, HF_LOCAL_ROPE)) {
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

// Which layers slide: layer_types lists it, or the family has its way.
static bool find_local(struct keys *k, bool *local, int64_t *count) {
    int64_t L = k->m->L, l = 0, period = k->m->family->period, from = has(k, HF_WINDOW_SWITCH) ? 28 : 0;
    struct hf_value *v = hf_find(k->c, "layer_types");
    bool bad = false;
    hf_find(k->c, "sliding_window_pattern"), hf_find(k->c, "_sliding_window_pattern"); // mean nothing beside a list
    if ((!v && (!hf_int(k->c, "sliding_window_pattern", false, 0, 1024, &period, k->err) ||
                !hf_int(k->c, "_sliding_window_pattern", false, 1, 1024, &period, k->err))) ||
        !hf_int(k->c, "max_window_layers", false, 0, 1024, &from, k->err))
        return false;
    for (int64_t i = 0; i < L; i++)
        local[i] = has(k, HF_WINDOW_SWITCH) ? i >= from : period == 0 || i % period < period - 1;
    if (v) {
        struct json j = open_value(v);
        struct text type = {0};
        bool good = json_array(&j);
        for (; good && l < L && json_item(&j); l++) {
            good = json_string(&j, &type);
            local[l] = good && !strcmp(type.data, "sliding_attention");
            bad = good && !local[l] && strcmp(type.data, "full_attention");
            good = good && !bad;
        }
        bad = bad || !good || l != L || json_item(&j) || j.bad;
        text_free(&type);
    }
    for (int64_t i = *count = 0; i < L; i++) *count += local[i];
    return !bad || err_set(k->err, "'layer_types' is not a list of 'full_attention' and 'sliding_attention' for %" PRId64
                                   " layers (entry %" PRId64 "): not supported", L, l);
}

static bool put_window(struct keys *k) {
    const struct hf_family *family = k->m->family;
    int64_t window = 0, L = k->m->L, count = 0;
    bool use = has(k, HF_WINDOW), usual = true, local[1024] = {false};
    if (!hf_int(k->c, "sliding_window", false, 0, 1 << 30, &window, k->err) || !find_local(k, local, &count)) return false;
    if (has(k, HF_WINDOW_SWITCH | HF_NO_ROPE)) use = false;
    if (!hf_bool(k->c, "use_sliding_window", &use, k->err)) return false;
    if (use && !has(k, HF_WINDOW))
        return err_set(k->err, "'use_sliding_window' is true: sliding windows in layers of %s are not supported", family->class);
    if (!use && has(k, HF_WINDOW_SWITCH) && count && hf_find(k->c, "layer_types"))
        return err_set(k->err, "'layer_types' names sliding layers, which %s has only with a window", family->class);
    if (use && family->period > 1 && !window && !has(k, HF_WINDOW_FREE))
        return err_set(k->err, "'sliding_window' is missing, which this model needs");
    if (!use || !window || (!count && family->period <= 1)) return true; // a list without any is told where GGUF has its own
    for (int64_t l = 0; l < L; l++)
        usual = usual && local[l] == (family->period == 0 || l % family->period < family->period - 1);
    put_int(k, "attention.sliding_window", window);
    if (!usual) key_bools(k->out, arch_key(k, "attention.sliding_window_pattern"), local, (size_t)L);
    return true;
}

// Where rope is left out: the list, or the interval, must say every fourth layer.
static bool check_no_rope(struct keys *k) {
    int64_t step = 4, turned, l = 0;
    struct hf_value *v = hf_find(k->c, "no_rope_layers");
    if (!hf_int(k->c, "no_rope_layer_interval", false, 1, 1024, &step, k->err)) return false;
    bool good = true;
    if (!v && step != 4) return err_set(k->err, "'no_rope_layer_interval' is %" PRId64 ", expected 4: not supported", step);
    if (v) {
        struct json j = open_value(v);
        good = json_array(&j);
        for (; good && json_item(&j); l++) good = json_integer(&j, &turned) && turned == ((l + 1) % 4 != 0);
        good = good && !j.bad && l == k->m->L;
    }
    return good || err_set(k->err, "'no_rope_layers' (entry %" PRId64 ") is not every fourth layer: not supported", l);
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
static bool check_experts(struct keys *k) {
    const struct hf_family *family = k->m->family;
    bool norm = has(k, HF_NORM_SWITCH) ? false : family->normed; // the classes that have the switch are born with false
    int64_t step = 1, used = 1;
    struct hf_value *dense = hf_find(k->c, "mlp_only_layers");
    if (!hf_int(k->c, "num_experts_per_tok", true, 1, k->m->E, &used, k->err) ||
        !hf_int(k->c, "decoder_sparse_step", false, 1, 1024, &step, k->err) ||
        !hf_bool(k->c, "norm_topk_prob", &norm, k->err))
        return false;
    if (step != 1 || (dense && dense->n > 2))
        return err_set(k->err, "'%s' is %.*s: layers without experts among those with experts are not supported",
                       step != 1 ? "decoder_sparse_step" : "mlp_only_layers", (int)(step != 1 || dense->n > 48 ? 48 : dense->n),
                       step != 1 ? hf_find(k->c, "decoder_sparse_step")->at : dense->at);
    int64_t F = 0; // what GGUF wants said of it
    if (has(k, HF_GPT_OSS) && (!expect_real(k, "swiglu_limit", 7) || !expect_real(k, "swiglu_alpha", 1.702) ||
                               !hf_int(k->c, "intermediate_size", true, 1, 1 << 20, &F, k->err)))
        return false;
    if (F) put_int(k, "expert_feed_forward_length", F);
    return norm == family->normed ||
           err_set(k->err, "'norm_topk_prob' is %s: %s is supported with %s only", norm ? "true" : "false",
                   family->class, family->normed ? "true" : "false");
}

static bool put_caps(struct keys *k) {
    static const char *const caps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    double scalar = (double)k->m->D;
    bool gemma2 = !strcmp(k->m->family->arch, "gemma2"), bidirectional = false;
    for (size_t i = 0; i < COUNT_OF(caps); i++) {
        double cap = 0;
        if (!hf_real(k->c, caps[i], false, 0, 1e6, &cap, k->err)) return false;
        if (cap > 0 || gemma2) put_real(k, caps[i], cap); // absent would mean the usual cap to GGUF
    }
    if (!hf_real(k->c, "query_pre_attn_scalar", false, 1, 1e6, &scalar, k->err)) return false;
    if (scalar != (double)k->m->D) put_real(k, "attention.scale", 1 / sqrt(scalar));
    if (!hf_bool(k->c, "use_bidirectional_attention", &bidirectional, k->err)) return false;
    return !bidirectional || err_set(k->err, "'use_bidirectional_attention' is true: not supported");
}

// Switches of the families with LayerNorm: which branch reads what, and an epsilon that no key says.
static bool put_layer_norm(struct keys *k) {
    bool parallel = has(k, HF_NEOX);
    if (has(k, HF_CLIP)) put_real(k, "attention.layer_norm_epsilon", 1e-5);
    if (!has(k, HF_PARALLEL)) return true;
    if (!hf_bool(k->c, "use_parallel_residual", &parallel, k->err)) return false;
    key_bool(k->out, arch_key(k, "use_parallel_residual"), parallel);
    return true;
}

// What only some families have.
static bool put_particular(struct keys *k) {
    return (!has(k, HF_LAYER_NORM) || put_layer_norm(k)) && (!has(k, HF_MINICPM) || put_minicpm(k)) && (!has(k, HF_EXPERTS) || check_experts(k)) &&
           (!has(k, HF_NO_ROPE) || check_no_rope(k)) && (!has(k, HF_CAPS) || put_caps(k));
}

// Switches that must stand as the family has them. Biases show as tensors, which are read or refused
// by name.
static bool check_switches(struct keys *k) {
    static const char *const shown_by_tensors[] = {"attention_bias", "mlp_bias", "qkv_bias", "use_qk_norm",
                                                    "use_bias", "use_qkv_bias", "attention_out_bias", "qk_layernorm"};
    bool x = false;
    for (size_t i = 0; i < COUNT_OF(shown_by_tensors); i++)
        if (!hf_bool(k->c, shown_by_tensors[i], &x, k->err)) return false;
    k->m->tied = has(k, HF_TIED);
    const char *act = k->m->family->act;
    bool scaled = true, by_layer = false;
    if (!hf_bool(k->c, "scale_attn_weights", &scaled, k->err) ||
        !hf_bool(k->c, "scale_attn_by_inverse_layer_idx", &by_layer, k->err))
        return false;
    if (!scaled || by_layer)
        return err_set(k->err, "'%s': not supported", scaled ? "scale_attn_by_inverse_layer_idx" : "scale_attn_weights");
    // Gemma 1 says "gelu" and means the tanh form, which its later hidden_activation names.
    return hf_bool(k->c, "tie_word_embeddings", &k->m->tied, k->err) &&
           expect_text(k->c, "hidden_act", act, k->m->family->act2, k->err) &&
           expect_text(k->c, "hidden_activation", act, NULL, k->err) &&
           expect_text(k->c, "activation_function", act, k->m->family->act2, k->err) &&
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
    for (size_t i = 0; named && i < hf_family_count; i++)
        if (!strcmp(hf_families[i].class, class.data)) found = &hf_families[i];
    if (!found && !named) err_set(err, "'architectures' names no class of models");
    if (!found && named) {
        struct text names = {0};
        char shown[SHOWN];
        for (size_t i = 0; i < hf_family_count; i++)
            text_fmt(&names, "%s%s", i ? ", " : "", hf_families[i].class);
        err_set(err, "'%s' is not known; known are %s",
                span_shown((struct span){class.data, class.len}, shown, sizeof shown), names.data);
        text_free(&names);
    }
    text_free(&class);
    return found;
}

static bool put_all(struct keys *k) {
    const struct hf_family *family = k->m->family;
    key_text_add(k->out, "general.architecture", family->arch, strlen(family->arch));
    return put_shape(k) && check_switches(k) && put_particular(k) && put_rope(k) && put_window(k) &&
           refuse_unknown(k->c, family, k->err);
}

// What transformers 5.23 takes for granted in the text part of Gemma 3.
static const char *const text_defaults[][2] = {
    {"num_attention_heads", "8"},        {"num_key_value_heads", "4"}, {"head_dim", "256"},
    {"vocab_size", "262208"},            {"rms_norm_eps", "1e-6"},     {"max_position_embeddings", "131072"},
    {"query_pre_attn_scalar", "256"},    {"num_hidden_layers", "26"},  {"hidden_size", "2304"},
    {"intermediate_size", "9216"},       {"sliding_window", "4096"},
};

// The text part as a config of its own.
static bool read_text_part(struct hf_config *c, struct keys *k) {
    struct hf_value *v = hf_find(c, "text_config");
    struct hf_config part = {0};
    char path[96];
    if (!v || v->kind != JSON_OBJECT) return err_set(k->err, "'text_config' is missing, which this model needs");
    if (hf_find(c, "quantization_config"))
        return err_set(k->err, "'quantization_config': weights quantized for other programs are not supported, take the "
                               "unquantized model");
    text_str(&part.bytes, "{\"\":null"); // so that a comma is always right
    for (size_t i = 0; i < COUNT_OF(text_defaults); i++) {
        snprintf(path, sizeof path, "text_config.%s", text_defaults[i][0]);
        if (name_index_find(&c->index, path, strlen(path), c->n) == c->n)
            text_fmt(&part.bytes, ",\"%s\":%s", text_defaults[i][0], text_defaults[i][1]);
    }
    size_t n = v->n - 1; // it was skipped over once, so it is well-formed, with blanks in it at most
    while (n > 1 && strchr(" \t\r\n", v->at[n - 1])) n--;
    if (n > 1) {
        text_str(&part.bytes, ",");
        text_add(&part.bytes, v->at + 1, n - 1);
    }
    text_str(&part.bytes, "}");
    k->c = &part;
    bool good = hf_config_parse(&part, k->err) && put_all(k) && hf_bool(c, "tie_word_embeddings", &k->m->tied, k->err);
    hf_config_free(&part);
    return good;
}

bool hf_config_keys(struct hf_config *c, struct hf_model *m, struct key_text *out, struct err *err) {
    *m = (struct hf_model){.family = find_family(c, err)};
    if (!m->family) return false;
    struct keys k = {.c = c, .m = m, .out = out, .err = err};
    return m->family->traits & HF_TEXT_PART ? read_text_part(c, &k) || err_in(err, "text_config") : put_all(&k);
}
