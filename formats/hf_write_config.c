// hf_write_config.c: config.json of a written folder, from the keys of an open file.
//
// The mirror of hf_config.c. Numbers go by its table; what takes arithmetic there takes it here: heads, rope, windows,
// caps, MiniCPM's multipliers, and the divisors of Llama 3's rope, from which the four numbers that make them are found
// again. A whitelist keeps the file honest: every key of the architecture must have been said or say "off".
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct config_writer {
    const struct model_file *f;
    const struct hf_shape *s;
    struct json_out j;
    struct err *err;
    double theta, local_theta; // of rope, in layers that slide
    char key[96];
};

static bool has(const struct config_writer *w, uint64_t traits) { return (w->s->family->traits & traits) != 0; }

static const char *arch_key(struct config_writer *w, const char *rest) {
    snprintf(w->key, sizeof w->key, "%s.%s", w->s->family->arch, rest);
    return w->key;
}

// The double of the shortest decimal that is this float: 1e-05 and not 9.99999974737875e-06.
static double plain_double(double x) {
    char digits[40];
    for (int n = 1; n <= 9; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, x);
        if ((float)strtod(digits, NULL) == (float)x) break;
    }
    return strtod(digits, NULL);
}

// Absent or zero leaves *value alone: writers of GGUF use both for "does not apply".
static bool read_real(struct config_writer *w, const char *rest, double *value) {
    double x = 0;
    if (!meta_real(w->f, arch_key(w, rest), false, 0, 1e30, &x, w->err)) return false;
    if (x != 0) *value = plain_double(x);
    return true;
}

static bool read_int(struct config_writer *w, const char *rest, int64_t *value) {
    return meta_int(w->f, arch_key(w, rest), false, 0, INT64_MAX, value, w->err);
}

static bool is_there(struct config_writer *w, const char *rest) {
    return meta_kind(w->f, arch_key(w, rest)) != META_ABSENT;
}

static void put_text(struct config_writer *w, const char *key, const char *value) {
    json_out_string(&w->j, key, value, strlen(value));
}

// With a point in any case: transformers 5 tells 3 from 3.0 and refuses the first where it wants a float.
static void put_real(struct config_writer *w, const char *key, double x) {
    size_t from = w->j.to->len;
    json_out_number(&w->j, key, x);
    const char *number = strrchr(w->j.to->data + from, ':');
    number = number ? number + 1 : w->j.to->data + from;
    if (!strpbrk(number, ".en")) text_str(w->j.to, ".0"); // n: null
}

// ---------------------------------------------------------------------------------------------------------------
// Which keys there may be.

#define ANY (HF_BLOCKS | HF_GPT2)

static const struct said { // by code; a number of hf_numbers is said too
    const char *gguf;
    uint64_t in;
} said[] = {
    {"vocab_size", ANY},                    {"attention.head_count_kv", ANY},
    {"attention.key_length", ANY},          {"attention.value_length", ANY},
    {"rope.dimension_count", HF_BLOCKS},    {"rope.freq_base", HF_BLOCKS},
    {"rope.freq_base_swa", HF_LOCAL_ROPE},  {"rope.scaling.type", HF_BLOCKS},
    {"rope.scaling.factor", HF_BLOCKS},     {"rope.scaling.original_context_length", HF_BLOCKS},
    {"rope.scaling.attn_factor", HF_BLOCKS}, {"rope.scaling.yarn_beta_fast", HF_BLOCKS},
    {"rope.scaling.yarn_beta_slow", HF_BLOCKS}, {"rope.scaling.finetuned", HF_BLOCKS},
    {"rope.scaling.yarn_log_multiplier", HF_BY_POSITION}, {"attention.temperature_scale", HF_BY_POSITION},
    {"rope.scale_linear", HF_BLOCKS},       {"attention.causal", ANY},
    {"attention.sliding_window", ANY},      {"attention.sliding_window_pattern", HF_WINDOW},
    {"attn_logit_softcapping", HF_CAPS},    {"final_logit_softcapping", HF_CAPS},
    {"attention.scale", HF_CAPS},           {"embedding_scale", HF_MINICPM},
    {"residual_scale", HF_MINICPM},         {"logit_scale", HF_MINICPM},
    {"expert_feed_forward_length", HF_EXPERTS}, {"tensor_data_layout", ANY},
    {"use_parallel_residual", HF_PARALLEL}, {"attention.layer_norm_epsilon", HF_CLIP},
    {"pooling_type", ANY},                  {"mm.tokens_per_image", ANY},
};

static bool refuse_other_keys(struct config_writer *w) {
    const struct hf_family *family = w->s->family;
    size_t n = strlen(family->arch);
    char shown[SHOWN];
    for (size_t i = 0; i < w->f->n_keys; i++) {
        const struct meta_entry *e = &w->f->keys[i];
        if (e->key.n <= n || memcmp(e->key.p, family->arch, n) || e->key.p[n] != '.') continue;
        struct span rest = {e->key.p + n + 1, e->key.n - n - 1};
        bool known = hf_number_of(family, rest) != NULL, off = e->type != GGUF_ARRAY && e->type != GGUF_TEXT;
        for (size_t k = 0; k < COUNT_OF(said); k++)
            known = known || (span_is(rest, said[k].gguf) && has(w, said[k].in));
        for (size_t b = 0; off && b < gguf_type_bytes(e->type); b++) off = e->at[b] == 0;
        if (!known && !off)
            return err_set(w->err, "%s has the key '%s', which config.json of a %s cannot say", path_end(w->f->map.path),
                           span_shown(e->key, shown, sizeof shown), family->class);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Numbers and heads.

// Where experts have no width of their own in config.json, the feed-forward's is theirs.
static int64_t expert_width(const struct config_writer *w) {
    const struct file_tensor *t = model_file_tensor(w->f, "blk.0.ffn_gate_exps.weight");
    return has(w, HF_EXPERTS) && t && t->n_dims == 3 ? t->size[1] : 0;
}

static bool put_numbers(struct config_writer *w) {
    for (size_t i = 0; i < hf_number_count; i++) {
        const struct hf_number *r = &hf_numbers[i];
        int64_t x = 0;
        double d = !strcmp(r->gguf, "attention.scale") ? 1 / sqrt((double)w->s->D) : 1; // absent or zero in GGUF
        if (!has(w, r->in)) continue;
        if (r->kind == HF_REAL) {
            if (!read_real(w, r->gguf, &d)) return false;
            if (r->presence == HF_MAYBE && !is_there(w, r->gguf)) json_out_null(&w->j, r->hf);
            else put_real(w, r->hf, d);
            continue;
        }
        bool feed_forward = !strcmp(r->gguf, "feed_forward_length"), experts = !strcmp(r->gguf, "expert_feed_forward_length");
        if (!meta_int(w->f, arch_key(w, r->gguf), r->presence == HF_NEEDED && !feed_forward, 0, INT32_MAX, &x, w->err)) return false;
        if (experts || (feed_forward && expert_width(w) && !has(w, HF_MOE_WIDTH))) x = expert_width(w);
        if (feed_forward && !x) x = has(w, HF_GPT2) ? 4 * w->s->C : expert_width(w);
        json_out_integer(&w->j, r->hf, x);
    }
    return true;
}

static bool put_heads(struct config_writer *w) {
    int64_t D = w->s->D, value = D, turned = D;
    if (!read_int(w, "attention.value_length", &value) || !read_int(w, "rope.dimension_count", &turned)) return false;
    if (value != D)
        return err_set(w->err, "values have head size %" PRId64 ", keys %" PRId64 ": config.json of a %s cannot say that", value, D,
                       w->s->family->class);
    json_out_integer(&w->j, "num_key_value_heads", w->s->G);
    json_out_integer(&w->j, "head_dim", D);
    if (turned == D && !(w->s->family->part > 0)) return true;
    if ((turned != D && has(w, HF_ADJACENT)) || turned > D)
        return err_set(w->err, "rope turns %" PRId64 " of %" PRId64 " columns of a head: config.json of a %s cannot say that",
                       turned, D, w->s->family->class);
    double part = (double)turned / (double)D; // read back as the whole part of D * part
    if ((int64_t)((double)D * part) < turned) part = nextafter(part, 1);
    put_real(w, has(w, HF_NEOX) ? "rotary_pct" : "partial_rotary_factor", part);
    return true;
}

static bool put_biases(struct config_writer *w) {
    const struct model_file *f = w->f;
    bool q = model_file_tensor(f, "blk.0.attn_q.bias") || model_file_tensor(f, "blk.0.attn_qkv.bias");
    bool o = model_file_tensor(f, "blk.0.attn_output.bias") != NULL;
    if (has(w, HF_BIAS_SWITCH) && q != o)
        return err_set(w->err, "the model has biases on %s only: a %s has them on queries, keys, values and output, or on none",
                       q ? "queries" : "the output", w->s->family->class);
    if (has(w, HF_BIAS_SWITCH | HF_BIAS_OUT | HF_NEOX)) json_out_bool(&w->j, "attention_bias", q);
    if (has(w, HF_BIAS_OUT)) json_out_bool(&w->j, "attention_out_bias", o);
    if (has(w, HF_BIAS_STABLE)) json_out_bool(&w->j, "use_qkv_bias", q);
    if (has(w, HF_STARCODER)) json_out_bool(&w->j, "use_bias", q);
    if (has(w, HF_MLP_SWITCH)) json_out_bool(&w->j, "mlp_bias", model_file_tensor(f, "blk.0.ffn_up.bias") != NULL);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Rope.

// Layers of OLMo 3 differ in rope, which only the newer spelling has words for.
static bool by_layer(const struct config_writer *w) { return has(w, HF_LOCAL_ROPE) && !has(w, HF_PLUS_ONE); }

static void open_rope(struct config_writer *w, const char *type, size_t n) {
    if (by_layer(w)) {
        json_out_object(&w->j, "rope_parameters");
        json_out_object(&w->j, "sliding_attention");
        put_text(w, "rope_type", "default");
        put_real(w, "rope_theta", w->local_theta);
        json_out_close(&w->j, '}');
        json_out_object(&w->j, "full_attention");
        put_real(w, "rope_theta", w->theta);
    } else {
        json_out_object(&w->j, "rope_scaling");
    }
    json_out_string(&w->j, "rope_type", type, n);
}

static void close_rope(struct config_writer *w) {
    json_out_close(&w->j, '}');
    if (by_layer(w)) json_out_close(&w->j, '}');
}

struct llama3 {
    double factor, low, high, ctx;
};

static double llama3_divisor(const struct llama3 *r, double wave) {
    double s = (r->ctx / wave - r->low) / (r->high - r->low);
    s = s < 0 ? 0 : s > 1 ? 1 : s;
    return 1 / ((1 - s) / r->factor + s);
}

static bool llama3_is(const struct llama3 *r, const float *x, const double *wave, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(llama3_divisor(r, wave[i]) / (double)x[i] - 1) < 1e-5)) return false;
    return r->factor > 1 && r->high > r->low && r->low > 0;
}

// The ramp s = (ctx/wave - low) / (high - low) is a line in 1/wave: two pairs inside it give low and high for a ctx that
// may be chosen; with one pair inside, low 1 and high 4 are chosen; with none, the ends of the ramp lie on its neighbours.
static bool find_llama3(const float *x, const double *wave, int64_t n, struct llama3 *r) {
    int64_t first = -1, last = -1, kept = 0;
    r->factor = 1;
    for (int64_t i = 0; i < n; i++) r->factor = fmax(r->factor, (double)x[i]);
    for (int64_t i = 0; i < n; i++) {
        kept += x[i] == 1;
        if (x[i] == 1 || (double)x[i] == r->factor) continue;
        last = i;
        if (first < 0) first = i;
    }
    r->factor = plain_double(r->factor), r->low = 1, r->high = 4, r->ctx = 8192;
    if (llama3_is(r, x, wave, n)) return true;
    double s[2] = {0, 0};
    for (int k = 0; k < 2 && first >= 0; k++)
        s[k] = (1 / (double)x[k ? last : first] - 1 / r->factor) / (1 - 1 / r->factor);
    if (first < 0 && kept > 0 && kept < n) {
        r->high = r->ctx / wave[kept - 1], r->low = r->ctx / wave[kept];
    } else if (first >= 0 && first == last) {
        r->ctx = round(wave[first] * (3 * s[0] + 1));
    } else if (first >= 0) {
        double slope = (s[0] - s[1]) / (1 / wave[first] - 1 / wave[last]), at_zero = s[0] - slope / wave[first];
        r->high = r->ctx / slope * (1 - at_zero), r->low = -at_zero * r->ctx / slope;
    }
    struct llama3 plain = *r;
    plain.low = round(r->low * 1e4) / 1e4, plain.high = round(r->high * 1e4) / 1e4;
    if (llama3_is(&plain, x, wave, n)) *r = plain;
    return llama3_is(r, x, wave, n);
}

static bool put_llama3(struct config_writer *w, const struct file_tensor *t, double theta, int64_t turned) {
    struct llama3 r = {0};
    int64_t n = turned / 2;
    if (t->dtype != DTYPE_F32 || t->n_dims != 1 || t->size[0] != n)
        return err_set(w->err, "tensor rope_freqs.weight is no list of %" PRId64 " numbers", n);
    double *wave = mem_array((size_t)n, sizeof *wave, "waves of rope");
    for (int64_t i = 0; i < n; i++) wave[i] = 2 * 3.14159265358979323846 * pow(theta, 2.0 * (double)i / (double)turned);
    bool found = find_llama3(t->data, wave, n, &r);
    mem_free(wave);
    if (!found)
        return err_set(w->err, "the divisors of rope in rope_freqs.weight are not of Llama 3's kind: config.json of a %s "
                               "cannot say them", w->s->family->class);
    open_rope(w, "llama3", 6);
    put_real(w, "factor", r.factor);
    put_real(w, "low_freq_factor", r.low);
    put_real(w, "high_freq_factor", r.high);
    json_out_integer(&w->j, "original_max_position_embeddings", (int64_t)r.ctx);
    close_rope(w);
    return true;
}

// LongRoPE's tensors of divisors as lists.
static bool put_long(struct config_writer *w, int64_t turned, double magnitude) {
    static const char *const names[][2] = {{"rope_factors_short.weight", "short_factor"}, {"rope_factors_long.weight", "long_factor"}};
    int64_t original = 0;
    if (!meta_int(w->f, arch_key(w, "rope.scaling.original_context_length"), true, 1, 1 << 24, &original, w->err)) return false;
    open_rope(w, "longrope", 8);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const struct file_tensor *t = model_file_tensor(w->f, names[i][0]);
        if (!t || t->dtype != DTYPE_F32 || t->n_dims != 1 || t->size[0] != turned / 2)
            return err_set(w->err, "tensor %s is missing or no list of %" PRId64 " numbers", names[i][0], turned / 2);
        json_out_array(&w->j, names[i][1]);
        for (int64_t k = 0; k < t->size[0]; k++) put_real(w, NULL, plain_double((double)((const float *)t->data)[k]));
        json_out_close(&w->j, ']');
    }
    json_out_integer(&w->j, "original_max_position_embeddings", original);
    put_real(w, "attention_factor", magnitude);
    close_rope(w);
    json_out_integer(&w->j, "original_max_position_embeddings", original);
    return true;
}

static bool put_yarn(struct config_writer *w, double factor, double magnitude, int64_t original) {
    double fast = 32, slow = 1, shrink = 0, beta = 0, grown = .1 * log(factor);
    if (!read_real(w, "rope.scaling.yarn_beta_fast", &fast) || !read_real(w, "rope.scaling.yarn_beta_slow", &slow) ||
        !read_real(w, "rope.scaling.yarn_log_multiplier", &shrink) || !read_real(w, "attention.temperature_scale", &beta))
        return false;
    json_out_integer(&w->j, "original_max_position_embeddings", original);
    put_real(w, "beta_fast", fast);
    put_real(w, "beta_slow", slow);
    if (has(w, HF_GPT_OSS)) json_out_bool(&w->j, "truncate", false);
    if (has(w, HF_BY_POSITION)) put_real(w, "llama_4_scaling_beta", beta);
    if (magnitude != 1) put_real(w, "attention_factor", magnitude * (1 + grown) / (1 + shrink * grown));
    else if (shrink > 0) put_real(w, "mscale", 1), put_real(w, "mscale_all_dim", shrink);
    return true;
}

static bool put_scaling(struct config_writer *w, double factor, struct span type, int64_t turned) {
    double magnitude = 1;
    int64_t ctx = 0;
    bool yarn = span_is(type, "yarn"), by_length = model_file_tensor(w->f, "rope_factors_long.weight") != NULL;
    if (!read_int(w, "context_length", &ctx) || !read_int(w, "rope.scaling.original_context_length", &ctx) ||
        !read_real(w, "rope.scaling.attn_factor", &magnitude))
        return false;
    if (by_length) return put_long(w, turned, magnitude);
    if (has(w, HF_BY_POSITION) && (factor == 1 || !yarn))
        return err_set(w->err, "rope is not stretched by YaRN: config.json of a %s cannot say that", w->s->family->class);
    if (magnitude != 1 && !yarn)
        return err_set(w->err, "%s is %g: config.json of a %s has it with YaRN only", w->key, magnitude, w->s->family->class);
    if (factor == 1 && (by_layer(w) || has(w, HF_STRETCHED))) {
        open_rope(w, "default", 7);
        close_rope(w);
        return true;
    }
    if (factor == 1) {
        json_out_null(&w->j, "rope_scaling");
        return true;
    }
    open_rope(w, type.p, type.n);
    put_real(w, "factor", factor);
    bool good = !yarn || put_yarn(w, factor, magnitude, ctx);
    close_rope(w);
    return good;
}

static bool put_rope(struct config_writer *w) {
    double theta = 1e4, factor = 1, local = 1e4;
    int64_t turned = w->s->D;
    struct span type = {"linear", 6}; // a factor without a type
    if (!read_real(w, "rope.freq_base", &theta) || !read_int(w, "rope.dimension_count", &turned)) return false;
    if (!has(w, HF_LOCAL_ROPE) || !has(w, HF_PLUS_ONE)) local = theta;
    if (!read_real(w, "rope.freq_base_swa", &local) || !read_real(w, "rope.scale_linear", &factor) ||
        !read_real(w, "rope.scaling.factor", &factor) ||
        !meta_text(w->f, arch_key(w, "rope.scaling.type"), false, &type, w->err))
        return false;
    static const char *const types[] = {"none", "linear", "yarn", "dynamic", "longrope"};
    size_t kind = 0;
    while (kind < COUNT_OF(types) && !span_is(type, types[kind])) kind++;
    if (kind == COUNT_OF(types))
        return err_set(w->err, "%s is '%.*s', which is not known here", w->key, (int)(type.n < 32 ? type.n : 32), type.p);
    bool none = kind == 0;
    w->theta = theta, w->local_theta = local;
    if (!by_layer(w)) put_real(w, has(w, HF_NEOX) ? "rotary_emb_base" : "rope_theta", theta);
    if (has(w, HF_LOCAL_ROPE) && has(w, HF_PLUS_ONE)) put_real(w, "rope_local_base_freq", local);
    else if (local != theta && !by_layer(w))
        return err_set(w->err, "layers with a window have a rope of base %g, others of %g: config.json of a %s cannot say that",
                       local, theta, w->s->family->class);
    const struct file_tensor *divisors = model_file_tensor(w->f, "rope_freqs.weight");
    if (divisors && !none && factor != 1)
        return err_set(w->err, "rope is stretched by a factor and by divisors: config.json cannot say both");
    return divisors ? put_llama3(w, divisors, theta, turned) : put_scaling(w, none ? 1 : factor, type, turned);
}

// ---------------------------------------------------------------------------------------------------------------
// Windows.

static bool read_local(struct config_writer *w, bool *local) {
    const struct hf_family *family = w->s->family;
    const char *key = arch_key(w, "attention.sliding_window_pattern");
    int64_t L = w->s->L, period = family->period, x = 0;
    struct meta_array list;
    if (meta_kind(w->f, key) != META_ARRAY) {
        if (!meta_int(w->f, key, false, 0, 1024, &period, w->err)) return false;
        for (int64_t l = 0; l < L; l++) local[l] = period == 0 || l % period < period - 1;
        return true;
    }
    if (!meta_array_open(w->f, key, META_BOOL, &list, NULL) && !meta_array_open(w->f, key, META_INT, &list, w->err)) return false;
    if (list.count != (uint64_t)L)
        return err_set(w->err, "%s has %" PRIu64 " entries, expected one for each of %" PRId64 " layers", key, list.count, L);
    for (int64_t l = 0; l < L && meta_next_int(&list, &x); l++) local[l] = x != 0;
    return true;
}

static bool put_windows(struct config_writer *w) {
    const struct hf_family *family = w->s->family;
    int64_t L = w->s->L, count = 0, full = 0, window = !strcmp(family->arch, "gemma2") ? 4096 : 0; // as GGUF has it when absent
    bool local[1024] = {false};
    if (!has(w, HF_WINDOW)) return true;
    if (!read_int(w, "attention.sliding_window", &window) || (window && !read_local(w, local))) return false;
    for (int64_t l = 0; l < L; l++) count += local[l];
    while (full < L && !local[full]) full++; // before the first that slides
    bool listed = family->period > 0; // classes whose layers are not all alike
    if (!listed && count && count < L)
        return err_set(w->err, "some layers have a window, some have none: config.json of a %s cannot say that", family->class);
    if (count || (window && has(w, HF_WINDOW_FREE))) json_out_integer(&w->j, "sliding_window", window);
    else if (family->period > 1 && !has(w, HF_WINDOW_FREE)) json_out_integer(&w->j, "sliding_window", 4096); // wanted, though no layer slides
    else json_out_null(&w->j, "sliding_window");
    if (has(w, HF_WINDOW_SWITCH)) {
        json_out_bool(&w->j, "use_sliding_window", count > 0);
        json_out_integer(&w->j, "max_window_layers", count ? full : L);
    }
    if (!listed) return true;
    json_out_array(&w->j, "layer_types");
    for (int64_t l = 0; l < L; l++) put_text(w, NULL, local[l] ? "sliding_attention" : "full_attention");
    json_out_close(&w->j, ']');
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// What only some families have.

static bool put_caps(struct config_writer *w) {
    static const struct {
        const char *name;
        double gemma2; // when absent
    } caps[] = {{"attn_logit_softcapping", 50}, {"final_logit_softcapping", 30}};
    const struct hf_shape *s = w->s;
    bool gemma2 = !strcmp(s->family->arch, "gemma2");
    for (size_t i = 0; i < COUNT_OF(caps); i++) {
        double cap = gemma2 && !is_there(w, caps[i].name) ? caps[i].gemma2 : 0;
        if (!read_real(w, caps[i].name, &cap)) return false;
        if (cap > 0) put_real(w, caps[i].name, cap);
        else json_out_null(&w->j, caps[i].name);
    }
    // GGUF knows the largest of these by their depth: they scale by the width over the heads.
    bool by_width = s->L == (gemma2 ? 46 : 62);
    double scale = 0, scalar = (double)(by_width ? s->C / s->H : s->D);
    if (!meta_real(w->f, arch_key(w, "attention.scale"), false, 0, 1e6, &scale, w->err)) return false;
    if (scale > 0) scalar = 1 / (scale * scale);
    if (fabs(scalar - round(scalar)) < 1e-5 * scalar) json_out_integer(&w->j, "query_pre_attn_scalar", (int64_t)round(scalar));
    else put_real(w, "query_pre_attn_scalar", scalar);
    return true;
}

static bool put_minicpm(struct config_writer *w) {
    double C = (double)w->s->C, depth = sqrt((double)w->s->L), embedding = 12, residual = 1.4 / depth, divisor = C / 256;
    if (!read_real(w, "embedding_scale", &embedding) || !read_real(w, "residual_scale", &residual) ||
        !read_real(w, "logit_scale", &divisor))
        return false;
    if (divisor < 1) divisor = 1 / divisor; // writers of GGUF disagree on what it means
    put_real(w, "scale_emb", embedding);
    put_real(w, "scale_depth", plain_double(residual * depth));
    put_real(w, "dim_model_base", plain_double(C / divisor));
    return true;
}

static bool put_particular(struct config_writer *w) {
    const struct hf_family *family = w->s->family;
    if (has(w, HF_MINICPM) && !put_minicpm(w)) return false;
    if (has(w, HF_CAPS) && !put_caps(w)) return false;
    if (has(w, HF_PARALLEL)) {
        bool parallel = has(w, HF_NEOX);
        if (!meta_bool(w->f, arch_key(w, "use_parallel_residual"), false, &parallel, w->err)) return false;
        json_out_bool(&w->j, "use_parallel_residual", parallel);
    }
    if (has(w, HF_NORM_SWITCH)) json_out_bool(&w->j, "norm_topk_prob", family->normed);
    if (has(w, HF_MOE_WIDTH)) {
        json_out_integer(&w->j, "decoder_sparse_step", 1);
        json_out_array(&w->j, "mlp_only_layers");
        json_out_close(&w->j, ']');
    }
    if (has(w, HF_NO_ROPE)) {
        json_out_integer(&w->j, "no_rope_layer_interval", 4);
        json_out_array(&w->j, "no_rope_layers"); // 1: turned
        for (int64_t l = 0; l < w->s->L; l++) json_out_integer(&w->j, NULL, (l + 1) % 4 != 0);
        json_out_close(&w->j, ']');
        json_out_bool(&w->j, "use_sliding_window", false);
    }
    return true;
}

static bool put_ids(struct config_writer *w) {
    static const char *const ids[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                         {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                         {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    for (size_t i = 0; i < COUNT_OF(ids); i++) {
        int64_t id = -1;
        if (!meta_int(w->f, ids[i][0], false, 0, INT32_MAX, &id, w->err)) return false;
        if (id >= 0 && id < w->s->V) json_out_integer(&w->j, ids[i][1], id);
        else json_out_null(&w->j, ids[i][1]); // an absent one would mean the class's own
    }
    return true;
}

bool hf_make_config(const struct model_file *f, const struct hf_shape *shape, struct text *to, struct err *err) {
    static const char *const types[] = {[DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    struct config_writer w = {.f = f, .s = shape, .err = err};
    const struct hf_family *family = shape->family;
    bool blocks = has(&w, HF_BLOCKS), gemma = has(&w, HF_PLUS_ONE) && !has(&w, HF_LAYER_NORM);
    if (!refuse_other_keys(&w)) return false;
    json_out_open(&w.j, to);
    json_out_object(&w.j, NULL);
    json_out_array(&w.j, "architectures");
    put_text(&w, NULL, family->class);
    json_out_close(&w.j, ']');
    put_text(&w, "model_type", family->type);
    if (!put_numbers(&w)) return false;
    if (blocks && !(put_heads(&w) && put_biases(&w) && put_rope(&w) && put_windows(&w) && put_particular(&w))) return false;
    json_out_integer(&w.j, "vocab_size", shape->V);
    put_text(&w, !blocks ? "activation_function" : gemma ? "hidden_activation" : "hidden_act", family->act);
    json_out_bool(&w.j, "tie_word_embeddings", shape->tied);
    put_text(&w, "torch_dtype", types[shape->matrices]);
    if (!put_ids(&w)) return false;
    json_out_close(&w.j, '}');
    text_str(to, "\n");
    return true;
}
