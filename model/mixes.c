// mixes.c: which tensor of a quantized file gets which dtype.
//
// A mix gives most matrices its base dtype and a few that are worth it more bits: the values of attention and the
// down projections of some layers, the output. The names and their meaning are llama.cpp's, so that "Q4_K_M" is the
// file that people know by this name; tests/golden/mixes.txt has its choices for six models, tensor by tensor.
//
// A mix is a row: rules in order, the first that fits decides. Three things hold for every mix and are code below: the
// output (or the embedding that serves as one) gets Q6_K, or Q8_0 where that does not divide it; eight experts share
// one small attention, which gets Q8_0; and a row that is no multiple of a block takes the next best format
// (dtype_that_divides). Norms, biases, routers and learned positions are small and delicate and stay as they are.
#include "model/model.h"

#include <string.h>
#include <strings.h>

static const struct role_name {
    const char *part; // of the tensor's name
    enum mix_role role;
} role_names[] = {
    {"attn_qkv.weight", MIX_VALUES}, {"attn_v.weight", MIX_VALUES},          {"attn_k.weight", MIX_KEYS},
    {"attn_q.weight", MIX_OTHER},    {"attn_output.weight", MIX_ATTN_OUT},   {"ffn_down", MIX_DOWN},
};

static enum mix_role role_of(const char *name) {
    if (!strcmp(name, "output.weight")) return MIX_OUTPUT;
    if (!strcmp(name, "token_embd.weight")) return MIX_EMBEDDING;
    for (size_t i = 0; i < COUNT_OF(role_names); i++)
        if (strstr(name, role_names[i].part)) return role_names[i].role;
    return MIX_OTHER;
}

// clang-format off
const struct mix mixes[] = {
    {.name = "F32",    .file_type = 0,  .base = DTYPE_F32,  .help = "32 bits"},
    {.name = "F16",    .file_type = 1,  .base = DTYPE_F16,  .help = "16 bits"},
    {.name = "BF16",   .file_type = 32, .base = DTYPE_BF16, .help = "16 bits, the range of F32"},
    {.name = "Q8_0",   .file_type = 7,  .base = DTYPE_Q8_0, .help = "8.5 bits, hardly any loss"},
    {.name = "Q6_K",   .file_type = 18, .base = DTYPE_Q6_K, .help = "6.6 bits"},
    {.name = "Q5_K_M", .also = "Q5_K", .file_type = 17, .base = DTYPE_Q5_K, .help = "5.7 bits", .rule = {
        {MIX_VALUES, WHEN_MORE_BITS, DTYPE_Q6_K}, {MIX_DOWN, WHEN_MORE_BITS, DTYPE_Q6_K}}},
    {.name = "Q5_K_S", .file_type = 16, .base = DTYPE_Q5_K, .help = "5.5 bits"},
    {.name = "Q4_K_M", .also = "Q4_K", .file_type = 15, .base = DTYPE_Q4_K, .help = "4.8 bits, the usual choice", .rule = {
        {MIX_VALUES, WHEN_MORE_BITS, DTYPE_Q6_K}, {MIX_DOWN, WHEN_MORE_BITS, DTYPE_Q6_K},
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "Q4_K_S", .file_type = 14, .base = DTYPE_Q4_K, .help = "4.6 bits", .rule = {
        {MIX_VALUES, WHEN_FIRST_4, DTYPE_Q5_K}, {MIX_DOWN, WHEN_FIRST_8TH, DTYPE_Q5_K},
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "IQ4_NL", .file_type = 25, .base = DTYPE_IQ4_NL, .wants_importance = true, .help = "4.5 bits", .rule = {
        {MIX_VALUES, WHEN_SHARED_KEYS, DTYPE_Q5_K}, {MIX_DOWN, WHEN_FIRST_8TH_UNWEIGHED, DTYPE_Q5_K},
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "IQ4_XS", .file_type = 30, .base = DTYPE_IQ4_XS, .wants_importance = true, .help = "4.3 bits", .rule = {
        {MIX_VALUES, WHEN_SHARED_KEYS, DTYPE_Q5_K}, {MIX_DOWN, WHEN_FIRST_8TH_UNWEIGHED, DTYPE_Q5_K},
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "Q3_K_L", .file_type = 13, .base = DTYPE_Q3_K, .help = "4.3 bits", .rule = {
        {MIX_VALUES, WHEN_ALWAYS, DTYPE_Q5_K}, {MIX_DOWN, WHEN_ALWAYS, DTYPE_Q5_K},
        {MIX_ATTN_OUT, WHEN_NOT_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "Q3_K_M", .also = "Q3_K", .file_type = 12, .base = DTYPE_Q3_K, .help = "3.9 bits", .rule = {
        {MIX_VALUES, WHEN_FIRST_2, DTYPE_Q5_K}, {MIX_VALUES, WHEN_ALWAYS, DTYPE_Q4_K},
        {MIX_DOWN, WHEN_FIRST_16TH, DTYPE_Q5_K}, {MIX_DOWN, WHEN_ALWAYS, DTYPE_Q4_K},
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}, {MIX_ATTN_OUT, WHEN_ALWAYS, DTYPE_Q4_K}}},
    {.name = "Q3_K_S", .file_type = 11, .base = DTYPE_Q3_K, .help = "3.4 bits", .rule = {
        {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K}}},
    {.name = "Q2_K",   .file_type = 10, .base = DTYPE_Q2_K, .wants_importance = true, .help = "3.2 bits, suffers without --imatrix", .rule = {
        {MIX_VALUES, WHEN_SHARED_KEYS, DTYPE_Q4_K}, {MIX_VALUES, WHEN_ALWAYS, DTYPE_Q3_K},
        {MIX_DOWN, WHEN_ALWAYS, DTYPE_Q3_K}, {MIX_ATTN_OUT, WHEN_EIGHT_EXPERTS, DTYPE_Q5_K},
        {MIX_ATTN_OUT, WHEN_ALWAYS, DTYPE_Q3_K}}},
    {.name = "Q2_K_S", .file_type = 21, .base = DTYPE_Q2_K, .needs_importance = true, .help = "2.9 bits, only with --imatrix", .rule = {
        {MIX_VALUES, WHEN_SHARED_KEYS, DTYPE_Q4_K}, {MIX_DOWN, WHEN_FIRST_8TH, DTYPE_Q4_K}}},
    {.name = "Q5_1",   .file_type = 9,  .base = DTYPE_Q5_1, .help = "6.0 bits, the older kind"},
    {.name = "Q5_0",   .file_type = 8,  .base = DTYPE_Q5_0, .help = "5.5 bits, the older kind", .rule = {
        {MIX_DOWN, WHEN_FIRST_8TH_WEIGHED, DTYPE_Q5_1}}},
    {.name = "Q4_1",   .file_type = 3,  .base = DTYPE_Q4_1, .help = "5.0 bits, the older kind"},
    {.name = "Q4_0",   .file_type = 2,  .base = DTYPE_Q4_0, .help = "4.5 bits, the older kind", .rule = {
        {MIX_DOWN, WHEN_FIRST_8TH_WEIGHED, DTYPE_Q4_1}}},
    {.name = "MXFP4_MOE", .file_type = 38, .base = DTYPE_Q8_0, .help = "experts as MXFP4, the rest as Q8_0", .rule = {
        {MIX_ANY, WHEN_STACKED, DTYPE_MXFP4}}},
};
// clang-format on
const int mix_count = (int)COUNT_OF(mixes);

const struct mix *mix_find(const char *name) {
    for (int i = 0; i < mix_count; i++)
        if (!strcasecmp(name, mixes[i].name) || (mixes[i].also && !strcasecmp(name, mixes[i].also))) return &mixes[i];
    return NULL;
}

// A matrix of one row is a vector to the other engine, and small to anyone.
static bool is_matrix(const struct file_tensor *t) {
    int long_sides = 0;
    for (int i = 0; i + 1 < t->n_dims; i++) long_sides += t->size[i] > 1;
    return long_sides > 0;
}

bool mix_may_change(const struct file_tensor *t) {
    size_t n = strlen(t->name);
    return is_matrix(t) && n >= 6 && !strcmp(t->name + n - 6, "weight") && !strstr(t->name, "_norm.weight") &&
           !strstr(t->name, "ffn_gate_inp.weight") && strcmp(t->name, "position_embd.weight") != 0;
}

// What a rule may ask about a tensor.
struct place {
    enum mix_role role;
    int64_t index, count; // among the tensors of its role, in order of layers
    bool stacked;         // a matrix per expert
    bool weighed, shared_keys, eight_experts;
};

static bool gets_more_bits(int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

static bool holds(enum mix_when when, const struct place *p) {
    switch (when) {
    case WHEN_ALWAYS: return true;
    case WHEN_FIRST_2: return p->index < 2;
    case WHEN_FIRST_4: return p->index < 4;
    case WHEN_FIRST_8TH: return p->index < p->count / 8;
    case WHEN_FIRST_16TH: return p->index < p->count / 16;
    case WHEN_FIRST_8TH_WEIGHED: return p->weighed && p->index < p->count / 8;
    case WHEN_FIRST_8TH_UNWEIGHED: return !p->weighed && p->index < p->count / 8;
    case WHEN_MORE_BITS: return gets_more_bits(p->index, p->count);
    case WHEN_SHARED_KEYS: return p->shared_keys;
    case WHEN_EIGHT_EXPERTS: return p->eight_experts;
    case WHEN_NOT_EIGHT_EXPERTS: return !p->eight_experts;
    case WHEN_STACKED: return p->stacked;
    }
    return false;
}

// The largest models of these architectures share each value head among eight query heads: a small tensor, worth bits.
static bool is_70b(const struct model_config *c) {
    if (c->L != 80) return false;
    return !strcmp(c->family->name, "qwen2") || (!strcmp(c->family->name, "llama") && c->H != c->G);
}

static enum dtype choose(const struct mix *m, const struct model_config *c, const struct file_tensor *t,
                         const struct place *p) {
    enum dtype d = m->base;
    if (dtype_row(d)->block_weights == 1) return d;
    if (p->role == MIX_OUTPUT) {
        bool divides = t->size[t->n_dims - 1] % dtype_row(d)->block_weights == 0;
        return divides && d != DTYPE_Q8_0 ? DTYPE_Q6_K : DTYPE_Q8_0;
    }
    if (p->role == MIX_EMBEDDING) return d;
    size_t i = 0;
    while (i < MIX_RULES && m->rule[i].role != MIX_NONE &&
           !((m->rule[i].role == MIX_ANY || m->rule[i].role == p->role) && holds(m->rule[i].when, p)))
        i++;
    if (i < MIX_RULES && m->rule[i].role != MIX_NONE) d = m->rule[i].dtype;
    if (p->role == MIX_VALUES && is_70b(c) && (d == DTYPE_Q3_K || d == DTYPE_Q4_K)) d = DTYPE_Q5_K;
    if ((p->role == MIX_VALUES || p->role == MIX_KEYS) && p->eight_experts) d = DTYPE_Q8_0;
    return d;
}

static int64_t layer_of(const char *name) {
    int64_t layer = 0;
    if (strncmp(name, "blk.", 4) != 0) return -1;
    for (name += 4; *name >= '0' && *name <= '9' && layer < LAYERS_MAX; name++) layer = layer * 10 + (*name - '0');
    return layer;
}

static bool stands_before(const struct file_tensor *a, const struct file_tensor *b) {
    int64_t x = layer_of(a->name), y = layer_of(b->name);
    return x != y ? x < y : strcmp(a->name, b->name) < 0;
}

// Which of its role t is, and of how many: files may have them in any order.
static void count_role(const struct model_config *c, const struct file_tensor *const *tensors, size_t n, size_t at,
                       struct place *p) {
    int64_t all = 0;
    for (size_t i = 0; i < n; i++) {
        if (role_of(tensors[i]->name) != p->role) continue;
        all++;
        p->index += mix_may_change(tensors[i]) && stands_before(tensors[i], tensors[at]);
    }
    p->count = p->role == MIX_DOWN ? c->L : all;
    if (p->role == MIX_DOWN && c->E > 1) p->index = layer_of(tensors[at]->name);
}

void mix_choose(const struct mix *m, const struct model_config *c, bool weighed,
                const struct file_tensor *const *tensors, size_t n, enum dtype *to) {
    bool tied = true;
    for (size_t i = 0; i < n; i++) tied = tied && strcmp(tensors[i]->name, "output.weight") != 0;
    for (size_t i = 0; i < n; i++) {
        const struct file_tensor *t = tensors[i];
        struct place p = {.role = role_of(t->name), .stacked = t->n_dims > 2 && t->size[0] > 1, .weighed = weighed,
                          .shared_keys = c->G > 0 && c->H / c->G >= 4, .eight_experts = c->E == 8};
        to[i] = t->dtype;
        if (!mix_may_change(t)) continue;
        if (tied && p.role == MIX_EMBEDDING) p.role = MIX_OUTPUT;
        if (p.role == MIX_VALUES || p.role == MIX_DOWN) count_role(c, tensors, n, i, &p);
        enum dtype wanted = m->pure ? m->base : choose(m, c, t, &p);
        to[i] = dtype_that_divides(wanted, t->size[t->n_dims - 1]);
    }
}
