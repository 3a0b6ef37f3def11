// config.c: the numbers that make a model, by size and by rule. Families are in families.c, files in config_file.c.
//
// A size is a row; a bound is a row.
//
// Sizes. The name counts all weights of the tied model with the vocabulary of its row, as GPT-2's 124M does; another
// vocabulary makes a smaller or larger model of the same width and depth. Width and depth grow together, in the
// manner of MiniCPM's wind-tunnel family (Hu et al. 2024): L from C/32 when small to C/64 when large. Head size 64 from 70M up, 32 below, 16 for widths under 96. Two query heads
// share a key head, four from 1B up. F is 8/3 C rounded up to a multiple of 32, so that a SwiGLU has the weights of
// a plain 4 C layer; experts in use share that, in multiples of 16, so the weights that a row meets are those of the size.
//
// Multipliers and initialisation of granite: muP in the dialect of PowerLM (Shen et al. 2024, table 1), base width
// 256; residual multiplier 1.4/sqrt(L) (MiniCPM). At C < 256 the width ratio is below one, which is the same rule.
#include "model/internal.h"

#include <math.h>
#include <string.h>

// --- sizes ---------------------------------------------------------------------------------------------------------

static const struct size {
    const char *name;
    int64_t C, L, V; // V: the vocabulary that the name counts
} sizes[] = {
    {"1M", 128, 3, 4096},      {"3M", 192, 6, 4096},      {"10M", 320, 8, 4096},
    {"30M", 512, 10, 4096},    {"70M", 640, 14, 8192},    {"125M", 768, 12, 49152},
    {"350M", 1024, 24, 49152}, {"1B", 1792, 28, 49152},   {"3B", 2560, 40, 49152},
};

const char *config_size_name(int i) { return i >= 0 && (size_t)i < COUNT_OF(sizes) ? sizes[i].name : NULL; }

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

// --- depth (methods B.4) -------------------------------------------------------------------------------------------

const struct depth_row depth_rules[] = {
    {"sqrt", -.5, 0, 0, 0.98994949366116653, true, "branches times 1.4/sqrt(layers), rates as they are", "Hu et al. 2024; Shen et al. 2024"},
    {"none", 0, 0, 0, 1, true, "branches as they are", ""},
    {"depth-mup", -.5, -.5, -.5, 1, false, "branches, rates and eps by the root of the depth", "Yang et al. 2023, arXiv 2310.02244"},
    {"completep", -1, 0, -1, 1, false, "branches and eps by the depth, rates as they are", "Dey et al. 2025, arXiv 2505.01618"},
};
const int depth_rule_count = COUNT_OF(depth_rules);

const struct depth_row *depth_rule_find(const char *name) {
    for (int i = 0; i < depth_rule_count; i++)
        if (strcmp(depth_rules[i].name, name) == 0) return &depth_rules[i];
    return NULL;
}

double config_depth(const struct model_config *c, double power) {
    return pow((double)c->L / (double)(c->base_layers ? c->base_layers : 2), power);
}

// Zero means "by the rule": an override of the width sets D, H, G and F to zero and calls this again.
void config_derive(struct model_config *c) {
    if (c->D == 0) c->D = c->H > 0 ? c->C / c->H : head_size(c->C);
    if (c->H == 0) c->H = c->C / c->D;
    if (c->G == 0) {
        int64_t share = c->C >= 1792 ? 4 : 2;
        c->G = c->H % share == 0 ? c->H / share : c->H;
    }
    if (c->E == 0 && c->family->needs & HAS(router)) c->E = 8, c->used = 2;
    if (c->F == 0) {
        c->F = ((c->C * 8 + 2) / 3 + 31) / 32 * 32;
        if (c->E > 0) c->F = (c->F / c->used + 15) / 16 * 16;
    }
    if (c->rope_base == 0) c->rope_base = 10000;
    if (c->norm_eps == 0) c->norm_eps = 1e-5f;
    if (c->base_width == 0) c->base_width = 256;
    c->mup = c->family->multipliers;
    if (c->init_std == 0) c->init_std = c->mup ? .1f : .02f;
    const struct depth_row *depth = c->depth ? c->depth : &depth_rules[0];
    double D = (double)c->D;
    c->m_emb = c->mup ? 12 : 1;
    c->m_attn = (float)(c->mup ? 1 / D : 1 / sqrt(D));
    c->m_res = (float)(c->mup ? depth->factor * config_depth(c, depth->residual) : 1);
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
        {"experts", c->E, 0, EXPERTS_MAX},       {"experts in use", c->used, c->E > 0, c->E},
        {"shared expert's width", c->FS, 0, 1 << 19}, {"window", c->window, 0, INT32_MAX},     {"columns without rope", c->unturned, 0, c->D - 1},
        {"exit layer", c->exit_layer, 0, c->L - 1},
    };
    if (!c->family) return err_set(err, "the model has no family");
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (whole[i].value < whole[i].min || whole[i].value > whole[i].max)
            return err_set(err, "%s is %lld, expected %lld to %lld", whole[i].name, (long long)whole[i].value,
                           (long long)whole[i].min, (long long)whole[i].max);
    if (c->D % 2 || c->unturned % 2)
        return err_set(err, "head size D is %lld, %lld of it without rope, expected even numbers", (long long)c->D,
                       (long long)c->unturned);
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
