// config.c: the numbers that make a model, and the table of parameters that follows from them.
//
// A family is a row; a size is a row; a bound is a row; a file key that would change what the model computes and that
// we do not compute is a row too, and refused by name: a model must never run with a feature of its file left out.
//
// Sizes. The name counts all weights of the tied model with the vocabulary of its row, as GPT-2's 124M does; another
// vocabulary makes a smaller or larger model of the same width and depth. Width and depth grow together, in the
// manner of MiniCPM's wind-tunnel family (Hu et al. 2024): L from C/32 when small to C/64 when large. Head size 64 from 70M up, 32 below, 16 for widths under 96. Two query heads
// share a key head, four from 1B up. F is 8/3 C rounded up to a multiple of 32, so that a SwiGLU has the weights of
// a plain 4 C layer.
//
// Multipliers and initialisation of granite: muP in the dialect of PowerLM (Shen et al. 2024, table 1), base width
// 256; residual multiplier 1.4/sqrt(L) (MiniCPM). At C < 256 the width ratio is below one, which is the same rule.
#include "model/internal.h"

#include <math.h>
#include <string.h>

const struct family families[] = {
    {"llama", ROPE_ADJACENT, false, "Llama 1 to 3, SmolLM, TinyLlama, Mistral, stories"},
    {"granite", ROPE_ADJACENT, true, "Granite and PowerLM: llama with the four muP multipliers; what ./train makes"},
};
const int family_count = COUNT_OF(families);

const struct family *family_find(const char *name) {
    for (int i = 0; i < family_count; i++)
        if (strcmp(families[i].name, name) == 0) return &families[i];
    return NULL;
}

static void family_names(struct text *t) {
    for (int i = 0; i < family_count; i++) text_fmt(t, "%s%s", i ? ", " : "", families[i].name);
}

// --- sizes ---------------------------------------------------------------------------------------------------------

static const struct size {
    const char *name;
    int64_t C, L, V; // V: the vocabulary that the name counts
} sizes[] = {
    {"1M", 128, 4, 2048},      {"3M", 192, 6, 4096},      {"10M", 320, 8, 4096},
    {"30M", 512, 10, 4096},    {"70M", 640, 14, 8192},    {"125M", 768, 12, 49152},
    {"350M", 1024, 24, 49152}, {"1B", 1792, 28, 49152},   {"3B", 2560, 40, 49152},
};

static int64_t head_size(int64_t C) { return C >= 640 ? 64 : C >= 96 ? 32 : 16; }

bool config_from_size(struct model_config *c, const struct family *family, const char *size, int64_t vocab,
                      int64_t ctx, struct err *err) {
    const struct size *s = NULL;
    for (size_t i = 0; i < COUNT_OF(sizes) && !s; i++)
        if (strcmp(sizes[i].name, size) == 0) s = &sizes[i];
    if (!s) {
        struct text names = {0};
        for (size_t i = 0; i < COUNT_OF(sizes); i++) text_fmt(&names, "%s%s", i ? ", " : "", sizes[i].name);
        err_set(err, "size '%s' is not one of %s", size, names.data);
        text_free(&names);
        return false;
    }
    *c = (struct model_config){.family = family, .C = s->C, .L = s->L, .V = vocab, .ctx = ctx, .tied = true};
    config_derive(c);
    return config_check(c, err);
}

// Zero means "by the rule": an override of the width sets D, H, G and F to zero and calls this again.
void config_derive(struct model_config *c) {
    if (c->D == 0) c->D = c->H > 0 ? c->C / c->H : head_size(c->C);
    if (c->H == 0) c->H = c->C / c->D;
    if (c->G == 0) {
        int64_t share = c->C >= 1792 ? 4 : 2;
        c->G = c->H % share == 0 ? c->H / share : c->H;
    }
    if (c->F == 0) c->F = ((c->C * 8 + 2) / 3 + 31) / 32 * 32;
    if (c->rope_base == 0) c->rope_base = 10000;
    if (c->norm_eps == 0) c->norm_eps = 1e-5f;
    if (c->base_width == 0) c->base_width = 256;
    c->mup = c->family->multipliers;
    if (c->init_std == 0) c->init_std = c->mup ? .1f : .02f;
    double D = (double)c->D, L = (double)c->L;
    c->m_emb = c->mup ? 12 : 1;
    c->m_attn = (float)(c->mup ? 1 / D : 1 / sqrt(D));
    c->m_res = (float)(c->mup ? 1.4 / sqrt(L) : 1);
    c->logit_divisor = c->mup ? (float)c->C / c->base_width : 1;
}

// --- checking ------------------------------------------------------------------------------------------------------

bool config_check(const struct model_config *c, struct err *err) {
    const struct {
        const char *name;
        int64_t value, min, max;
    } whole[] = {
        {"width C", c->C, 1, 1 << 17},           {"layers L", c->L, 1, 1024},
        {"query heads H", c->H, 1, 1024},        {"key/value heads G", c->G, 1, 1024},
        {"head size D", c->D, 2, 1024},          {"feed-forward width F", c->F, 1, 1 << 19},
        {"vocabulary V", c->V, 2, 1 << 22},      {"context", c->ctx, 1, 1 << 24},
    };
    if (!c->family) return err_set(err, "the model has no family");
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (whole[i].value < whole[i].min || whole[i].value > whole[i].max)
            return err_set(err, "%s is %lld, expected %lld to %lld", whole[i].name, (long long)whole[i].value,
                           (long long)whole[i].min, (long long)whole[i].max);
    if (c->D % 2) return err_set(err, "head size D is %lld, expected an even number", (long long)c->D);
    if (c->H % c->G)
        return err_set(err, "%lld query heads cannot share %lld key/value heads evenly", (long long)c->H,
                       (long long)c->G);
    const struct {
        const char *name;
        double value, max;
    } real[] = {
        {"rope base", c->rope_base, 1e12},      {"norm eps", c->norm_eps, 1},
        {"embedding scale", c->m_emb, 1e6},     {"attention scale", c->m_attn, 1e3},
        {"residual scale", c->m_res, 1e3},      {"logit scale", c->logit_divisor, 1e6},
        {"init std", c->init_std, 1e3},         {"base width", c->base_width, 1e6},
    };
    for (size_t i = 0; i < COUNT_OF(real); i++)
        if (!(real[i].value > 0 && real[i].value <= real[i].max)) // also refuses NaN
            return err_set(err, "%s is %g, expected a number above 0 and at most %g", real[i].name, real[i].value,
                           real[i].max);
    return true;
}

// --- files ---------------------------------------------------------------------------------------------------------

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

// Keys that change what a model computes in a way that forward.c does not. Each may be absent or say "off".
static bool refuse_features(const struct model_file *f, const struct model_config *c, struct err *err) {
    const struct family *a = c->family;
    char k[96];
    static const struct {
        const char *rest;
        double off; // besides 0
        const char *what;
    } numbers[] = {
        {"rope.scaling.factor", 1, "stretched rope"},
        {"rope.scale_linear", 1, "stretched rope"},
        {"rope.scaling.attn_factor", 1, "stretched rope"},
        {"expert_count", 0, "mixture of experts"},
        {"attn_logit_softcapping", 0, "capped attention scores"},
        {"final_logit_softcapping", 0, "capped logits"},
        {"attention.clamp_kqv", 0, "clamped queries and keys"},
        {"attention.max_alibi_bias", 0, "ALiBi positions"},
        {"leading_dense_block_count", 0, "mixture of experts"},
    };
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        double x = 0;
        if (!meta_real(f, key(k, a, numbers[i].rest), false, -1e300, 1e300, &x, err)) return false;
        if (x != 0 && x != numbers[i].off)
            return err_set(err, "%s is %g: %s is not supported, so the model would compute something else", k, x,
                           numbers[i].what);
    }
    struct span type = {"none", 4};
    if (!meta_text(f, key(k, a, "rope.scaling.type"), false, &type, err)) return false;
    if (!span_is(type, "none"))
        return err_set(err, "%s is '%.*s', expected 'none': stretched rope is not supported", k,
                       (int)(type.n < 32 ? type.n : 32), type.p);
    int64_t window = 0;
    if (!meta_int(f, key(k, a, "attention.sliding_window"), false, 0, INT64_MAX, &window, err)) return false;
    if (window > 0 && window < c->ctx)
        return err_set(err, "%s is %lld, less than the context of %lld: sliding-window attention is not supported", k,
                       (long long)window, (long long)c->ctx);
    const struct {
        const char *rest;
        bool expected;
    } flags[] = {
        {"attention.causal", true},
        {"use_parallel_residual", false},
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

// The multipliers of granite; a llama file that carries some must say one, or it is no plain llama.
static bool read_multipliers(const struct model_file *f, struct model_config *c, struct err *err) {
    struct {
        const char *rest;
        float *value;
    } rows[] = {
        {"embedding_scale", &c->m_emb},
        {"attention.scale", &c->m_attn},
        {"residual_scale", &c->m_res},
        {"logit_scale", &c->logit_divisor},
    };
    c->m_emb = c->m_res = c->logit_divisor = 1;
    c->m_attn = (float)(1 / sqrt((double)c->D));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        float plain = *rows[i].value;
        if (!read_real(f, c->family, rows[i].rest, 1e6, rows[i].value, err)) return false;
        if (!c->family->multipliers && fabsf(*rows[i].value - plain) > 1e-6f * plain)
            return err_set(err, "%s.%s is %g: a %s model has no such multiplier (granite has)", c->family->name,
                           rows[i].rest, (double)*rows[i].value, c->family->name);
    }
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
    if (!read_int(f, a, "embedding_length", true, 1 << 17, &c->C, err)) return false;
    if (!read_int(f, a, "block_count", true, most, &c->L, err)) return false;
    if (!read_int(f, a, "attention.head_count", true, 1024, &c->H, err)) return false;
    c->G = c->H;
    if (!read_int(f, a, "attention.head_count_kv", false, 1024, &c->G, err)) return false;
    if (!read_int(f, a, "feed_forward_length", true, 1 << 19, &c->F, err)) return false;
    if (!read_int(f, a, "context_length", true, 1 << 24, &c->ctx, err)) return false;
    c->D = c->C / c->H;
    if (!read_int(f, a, "attention.key_length", false, 1024, &c->D, err)) return false;
    int64_t value_length = c->D, rotated = c->D;
    if (!read_int(f, a, "attention.value_length", false, 1 << 20, &value_length, err)) return false;
    if (value_length != c->D)
        return err_set(err, "values have head size %lld, keys %lld: not supported", (long long)value_length,
                       (long long)c->D);
    if (!read_int(f, a, "rope.dimension_count", false, 1 << 20, &rotated, err)) return false;
    if (rotated != c->D)
        return err_set(err, "rope turns %lld of %lld columns of a head: not supported", (long long)rotated,
                       (long long)c->D);
    c->V = embed->size[0];
    int64_t vocab = c->V;
    if (!read_int(f, a, "vocab_size", false, INT64_MAX, &vocab, err)) return false;
    if (vocab != c->V)
        return err_set(err, "%s.vocab_size is %lld, but token_embd.weight has %lld rows", a->name, (long long)vocab,
                       (long long)c->V);
    c->tied = model_file_tensor(f, "output.weight") == NULL;
    return true;
}

static bool read_all(struct model_config *c, const struct model_file *f, struct err *err) {
    struct span arch;
    if (!meta_text(f, "general.architecture", true, &arch, err)) return false;
    *c = (struct model_config){.rope_base = 10000};
    for (int i = 0; i < family_count; i++)
        if (span_is(arch, families[i].name)) c->family = &families[i];
    if (!c->family) {
        struct text names = {0};
        family_names(&names);
        err_set(err, "architecture '%.*s' is not known; known are %s", (int)(arch.n < 64 ? arch.n : 64), arch.p,
                names.data);
        text_free(&names);
        return false;
    }
    if (!read_shape(f, c, err)) return false;
    char k[96];
    double eps = 0;
    if (!meta_real(f, key(k, c->family, "attention.layer_norm_rms_epsilon"), true, 1e-30, 1, &eps, err)) return false;
    c->norm_eps = (float)eps;
    if (!read_real(f, c->family, "rope.freq_base", 1e12, &c->rope_base, err)) return false;
    if (!read_multipliers(f, c, err)) return false;
    // What a file does not say and only training reads: the rule that config_derive would have used.
    c->mup = c->family->multipliers;
    c->init_std = c->mup ? .1f : .02f;
    c->base_width = c->mup ? (float)c->C / c->logit_divisor : 256;
    return refuse_features(f, c, err) && config_check(c, err);
}

bool config_read(struct model_config *c, const struct model_file *f, struct err *err) {
    return read_all(c, f, err) || err_in(err, "%s", model_file_path(f));
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
        {"attention.key_length", c->D},   {"attention.value_length", c->D},   {"rope.dimension_count", c->D},
        {"vocab_size", c->V},
    };
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        gguf_out_u32(o, key(k, a, whole[i].rest), (uint32_t)whole[i].value);
    gguf_out_f32(o, key(k, a, "attention.layer_norm_rms_epsilon"), c->norm_eps);
    gguf_out_f32(o, key(k, a, "rope.freq_base"), c->rope_base);
    if (!a->multipliers) return;
    gguf_out_f32(o, key(k, a, "embedding_scale"), c->m_emb);
    gguf_out_f32(o, key(k, a, "attention.scale"), c->m_attn);
    gguf_out_f32(o, key(k, a, "residual_scale"), c->m_res);
    gguf_out_f32(o, key(k, a, "logit_scale"), c->logit_divisor);
}

// --- the table of parameters ---------------------------------------------------------------------------------------

struct param *config_params_table(const struct model_config *c, int *count) {
    int64_t q = c->H * c->D, kv = c->G * c->D;
    double width = c->mup ? (double)c->C / (double)c->base_width : 1; // muP width ratio
    float hidden = (float)((double)c->init_std / sqrt(width));       // matrices between activations
    float writer = (float)((double)hidden / sqrt(2 * (double)c->L)); // those that add to the residual stream
    float lr = (float)(1 / width);
    const struct {
        const char *name;
        int64_t rows, cols;
        float std;
    } block[] = {
        {"attn_norm", 1, c->C, 0},      {"attn_q", q, c->C, hidden},        {"attn_k", kv, c->C, hidden},
        {"attn_v", kv, c->C, hidden},   {"attn_output", c->C, q, writer},   {"ffn_norm", 1, c->C, 0},
        {"ffn_gate", c->F, c->C, hidden}, {"ffn_up", c->F, c->C, hidden},   {"ffn_down", c->C, c->F, writer},
    };
    static_assert(COUNT_OF(block) == sizeof(struct layer) / sizeof(int), "a layer names each of its parameters once");
    int n = (int)(1 + c->L * (int64_t)COUNT_OF(block) + 1 + !c->tied), i = 0;
    struct param *p = mem_array((size_t)n, sizeof *p, "parameter table");
    p[i++] = (struct param){"token_embd.weight", c->V, c->C, c->init_std, 1, true, {0}, {0}, {0}, false};
    for (int64_t l = 0; l < c->L; l++) {
        for (size_t j = 0; j < COUNT_OF(block); j++, i++) {
            bool norm = block[j].std == 0;
            p[i] = (struct param){.rows = block[j].rows, .cols = block[j].cols, .init_std = block[j].std,
                                  .lr_scale = norm ? 1 : lr, .decay = !norm};
            snprintf(p[i].name, sizeof p[i].name, "blk.%lld.%s.weight", (long long)l, block[j].name);
        }
    }
    p[i++] = (struct param){"output_norm.weight", 1, c->C, 0, 1, false, {0}, {0}, {0}, false};
    if (!c->tied) p[i++] = (struct param){"output.weight", c->V, c->C, c->init_std, 1, true, {0}, {0}, {0}, false};
    assert(i == n);
    *count = n;
    return p;
}

int64_t config_params(const struct model_config *c) {
    int64_t q = c->H * c->D, kv = c->G * c->D;
    int64_t layer = 2 * c->C + 2 * q * c->C + 2 * kv * c->C + 3 * c->F * c->C;
    return c->V * c->C * (c->tied ? 1 : 2) + c->L * layer + c->C;
}

double config_flops_per_token(const struct model_config *c, int64_t T) {
    // Products: every weight once forward, twice backward; looking up a row of an embedding is no product.
    double products = (double)config_params(c) - (c->tied ? 0 : (double)(c->V * c->C));
    return 6 * products + 6 * (double)c->L * (double)(c->H * c->D) * (double)T;
}
