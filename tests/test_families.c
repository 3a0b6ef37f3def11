// test_families.c: every family computes what the engine that people trust computes, and no bit depends on how a text is
// fed; what a file has that we do not compute is refused by name.
//
// Goldens: tests/make_family_goldens.py. Tiny models with all switches of their family on, logits of llama.cpp.
#include "model/internal.h"
#include "tests/hand.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct backend *cpu(const char *level) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(level, &e);
    cr_assert(b || level, "%s", e.text);
    return b;
}

// The largest difference allowed, with logits of size 1 to 6: two f32 engines, whose sums, exponentials and angles (the
// other engine's are made by repeated products in f32) round differently.
static const double tolerance = 5e-5;
static const struct golden {
    const char *name, *arch;
} goldens[] = {
    {"llama_divisors", "llama"}, {"llama_biases", "llama"}, {"qwen2", "qwen2"},     {"qwen3", "qwen3"},
    {"gemma3", "gemma3"},        {"gpt2", "gpt2"},          {"phi3", "phi3"},       {"olmo2", "olmo2"},
    {"gemma", "gemma"},          {"gemma2", "gemma2"},      {"minicpm", "minicpm"}, {"granitemoe", "granitemoe"},
    {"mixtral", "llama"},        {"olmoe", "olmoe"},        {"qwen3moe", "qwen3moe"},
};

struct expected {
    struct text bytes;
    int32_t ids_count, rows, V;
    const int32_t *ids, *row;
    const float *logits;
};

static struct model_file *open_golden(const char *name) {
    char path[96];
    struct err e = {{0}};
    snprintf(path, sizeof path, "tests/golden/family_%s.gguf", name);
    struct model_file *f = model_file_open(path, &e);
    cr_assert(f, "%s", e.text);
    return f;
}

static struct expected open_expected(const char *name) {
    char path[96];
    struct err e = {{0}};
    struct expected x = {{0}, 0, 0, 0, NULL, NULL, NULL};
    snprintf(path, sizeof path, "tests/golden/family_%s.logits", name);
    cr_assert(file_read_all(path, 1 << 20, &x.bytes, &e), "%s", e.text);
    const int32_t *head = (const int32_t *)(const void *)x.bytes.data;
    x.ids_count = head[0], x.rows = head[1], x.V = head[2];
    x.ids = head + 3, x.row = x.ids + x.ids_count;
    x.logits = (const float *)(const void *)(x.row + x.rows);
    cr_assert(x.bytes.len == 4 * (size_t)(3 + x.ids_count + x.rows + x.rows * x.V));
    return x;
}

static struct model *load(const struct model_file *f, const struct backend *b) {
    struct err e = {{0}};
    struct model *m = model_load(f, b, &e);
    cr_assert(m, "%s", e.text);
    return m;
}

// Feeds ids in pieces of `piece` rows (the first one `first`), all logits into `out` [n,V].
static void feed_all(struct model *m, const int32_t *ids, int64_t n, int64_t first, int64_t piece, float *out) {
    struct err e = {{0}};
    struct session *s = session_new(m, &(struct session_options){.all_logits = n, .chunk = 16}, &e);
    cr_assert(s, "%s", e.text);
    for (int64_t at = 0; at < n;) {
        int64_t rows = at == 0 ? first : piece;
        if (rows > n - at) rows = n - at;
        const float *z = session_feed(s, ids + at, rows, FEED_GENERATED, LOGITS_ALL, &e);
        cr_assert(z, "%s", e.text);
        memcpy(out + at * m->config.V, z, (size_t)(rows * m->config.V) * sizeof *z);
        at += rows;
    }
    session_free(s);
}

Test(families, logits_are_those_of_llama_cpp) {
    pool_start(2);
    static const char *const levels[] = {"plain", "avx2", NULL};
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        for (size_t l = 0; l < COUNT_OF(levels); l++) {
            if (!cpu(levels[l])) continue;
            struct model *m = load(f, cpu(levels[l]));
            cr_assert_str_eq(m->config.family->name, goldens[g].arch);
            float *z = malloc((size_t)(x.ids_count * x.V) * sizeof *z);
            feed_all(m, x.ids, x.ids_count, 40, 1, z);
            double worst = 0;
            for (int32_t i = 0; i < x.rows; i++)
                for (int32_t v = 0; v < x.V; v++)
                    worst = fmax(worst, fabs((double)z[x.row[i] * x.V + v] - (double)x.logits[i * x.V + v]));
            cr_expect(worst < tolerance, "%s %s: off by %g", goldens[g].name, levels[l] ? levels[l] : "best",
                      worst);
            free(z), model_free(m);
        }
        text_free(&x.bytes), model_file_close(f);
    }
}

static float *whole_text(struct model *m, const struct expected *x, int64_t first, int64_t piece) {
    float *z = malloc((size_t)(x->ids_count * x->V) * sizeof *z);
    feed_all(m, x->ids, x->ids_count, first, piece, z);
    return z;
}

Test(families, cuts_threads_and_fast_levels_change_no_bit) {
    static const int64_t cuts[][2] = {{1, 1}, {50, 1}, {3, 7}, {20, 30}};
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        size_t bytes = (size_t)(x.ids_count * x.V) * sizeof(float);
        pool_start(1);
        struct model *m = load(f, cpu(NULL));
        float *expected = whole_text(m, &x, 40, 1);
        for (size_t k = 0; k < COUNT_OF(cuts); k++) {
            pool_start(1 + (int)k);
            float *z = whole_text(m, &x, cuts[k][0], cuts[k][1]);
            cr_assert_arr_eq(z, expected, bytes, "%s: cut %zu differs", goldens[g].name, k);
            free(z);
        }
        if (m->backend->reads_host && cpu("avx2")) { // a GPU has roundings of its own
            struct model *narrow = load(f, cpu("avx2"));
            float *z = whole_text(narrow, &x, 40, 1);
            cr_assert_arr_eq(z, expected, bytes, "%s: avx2 differs", goldens[g].name);
            free(z), model_free(narrow);
        }
        free(expected), model_free(m), text_free(&x.bytes), model_file_close(f);
    }
}

// Logits of the first ids of a session of its own, in one feed.
static float *first_feed(struct model *m, const struct expected *x, int64_t n, enum feed feed) {
    struct err e = {{0}};
    struct session *s = session_new(m, &(struct session_options){.all_logits = n}, &e);
    const float *z = s ? session_feed(s, x->ids, n, feed, LOGITS_ALL, &e) : NULL;
    cr_assert(z, "%s", e.text);
    float *copy = malloc((size_t)(n * x->V) * sizeof *copy);
    memcpy(copy, z, (size_t)(n * x->V) * sizeof *z);
    session_free(s);
    return copy;
}

Test(families, the_first_feed_reads_the_file_and_has_the_bits_of_packed_weights) {
    static const enum feed kinds[] = {FEED_PROMPT, FEED_GENERATED};
    pool_start(2);
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        struct model *m = load(f, cpu(NULL));
        size_t bytes = model_unsettled_bytes(m);
        if (!m->backend->reads_host) cr_skip_test("weights go to a GPU when a model is loaded");
        cr_assert(bytes > 0 && bytes <= model_file_bytes(f));
        float *z[2][COUNT_OF(kinds)];
        for (int packed = 0; packed < 2; packed++) {
            struct err e = {{0}};
            cr_assert(!packed || model_settle(m, &e), "%s", e.text);
            for (size_t k = 0; k < COUNT_OF(kinds); k++) z[packed][k] = first_feed(m, &x, 20, kinds[k]);
            cr_assert_eq(model_unsettled_bytes(m), packed ? 0 : bytes);
        }
        for (size_t k = 0; k < COUNT_OF(kinds); k++) {
            cr_assert_arr_eq(z[0][k], z[1][k], 20 * (size_t)x.V * sizeof(float), "%s", goldens[g].name);
            free(z[0][k]), free(z[1][k]);
        }
        free(first_feed(m, &x, 20, FEED_PROMPT)); // settled twice is settled once
        model_free(m), text_free(&x.bytes), model_file_close(f);
    }
}

Test(families, a_second_feed_or_a_long_first_one_packs_the_weights) {
    pool_start(2);
    struct model_file *f = open_golden("qwen2");
    struct expected x = open_expected("qwen2");
    struct err e = {{0}};
    for (int long_first = 0; long_first < 2; long_first++) {
        struct model *m = load(f, cpu(NULL));
        if (!m->backend->reads_host) cr_skip_test("weights go to a GPU when a model is loaded");
        struct session *s = session_new(m, &(struct session_options){.chunk = 16}, &e);
        cr_assert(session_feed(s, x.ids, long_first ? 17 : 16, FEED_PROMPT, LOGITS_NONE, &e), "%s", e.text);
        cr_assert_eq(model_unsettled_bytes(m) == 0, long_first);
        cr_assert(session_feed(s, x.ids + 20, 1, FEED_GENERATED, LOGITS_NONE, &e), "%s", e.text);
        cr_assert_eq(model_unsettled_bytes(m), 0);
        session_free(s), model_free(m);
    }
    text_free(&x.bytes), model_file_close(f);
}

Test(families, nothing_is_allocated_after_the_first_feed) {
    pool_start(2);
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        struct err e = {{0}};
        struct model *m = load(f, cpu(NULL));
        struct session *s = session_new(m, &(struct session_options){0}, &e);
        cr_assert(s && session_feed(s, x.ids, 20, FEED_GENERATED, LOGITS_LAST, &e), "%s", e.text);
        cr_assert(session_feed(s, x.ids + 20, 1, FEED_GENERATED, LOGITS_LAST, &e), "%s", e.text);
        mem_freeze(true);
        bool fed = session_feed(s, x.ids + 21, 1, FEED_GENERATED, LOGITS_LAST, &e) && session_feed(s, x.ids + 22, 20, FEED_GENERATED, LOGITS_LAST, &e);
        mem_freeze(false);
        cr_assert(fed, "%s", e.text);
        session_free(s), model_free(m), text_free(&x.bytes), model_file_close(f);
    }
}

// The file with the last letter of one name changed, which keeps every offset.
static void rename_and_load(const struct text *file, const char *old, const char *name) {
    struct text copy = {0};
    struct err e = {{0}};
    text_add(&copy, file->data, file->len);
    size_t n = strlen(old);
    char *at = NULL;
    for (size_t i = 8; i + n <= copy.len && !at; i++) {
        uint64_t len;
        memcpy(&len, copy.data + i - 8, sizeof len);
        if (len == n && memcmp(copy.data + i, old, n) == 0) at = copy.data + i;
    }
    cr_assert(at, "%s has no %s", name, old);
    at[n - 1] = '_';
    char changed[128];
    snprintf(changed, sizeof changed, "%.*s", (int)n, at);
    struct model_file *f = model_file_open_bytes(copy.data, copy.len, name, &e);
    cr_assert(f, "%s", e.text);
    struct model *m = model_load(f, cpu("plain"), &e);
    cr_assert(!m, "%s runs without %s", name, old);
    // A joined tensor that is gone at layer 0 makes the file one that does not join: its parts are missing.
    bool part = strstr(old, "blk.0.") && strstr(e.text, "is missing");
    cr_assert(strstr(e.text, old) || strstr(e.text, changed) || part, "%s without %s: %s", name, old, e.text);
    model_file_close(f), text_free(&copy);
}

struct names {
    const char *arch;
    char name[64][96];
    size_t count;
};
static void collect(void *arg, const char *key, const char *value) {
    struct names *all = arg;
    (void)value;
    size_t n = strlen(all->arch);
    if (strncmp(key, all->arch, n) == 0 && key[n] == '.') snprintf(all->name[all->count++], 96, "%.90s", key);
    cr_assert(all->count < 64);
}

Test(families, every_tensor_and_key_of_a_file_is_used_or_refused_by_name) {
    pool_start(1);
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        char path[96];
        struct err e = {{0}};
        struct text bytes = {0};
        snprintf(path, sizeof path, "tests/golden/family_%s.gguf", goldens[g].name);
        cr_assert(file_read_all(path, 1 << 20, &bytes, &e), "%s", e.text);
        struct model_file *f = open_golden(goldens[g].name);
        for (size_t t = 0; t < model_file_tensor_count(f); t++)
            rename_and_load(&bytes, model_file_tensor_at(f, t)->name, goldens[g].name);
        struct names keys = {.arch = goldens[g].arch};
        meta_each(f, collect, &keys);
        cr_assert(keys.count >= 8);
        for (size_t k = 0; k < keys.count; k++) rename_and_load(&bytes, keys.name[k], goldens[g].name);
        model_file_close(f), text_free(&bytes);
    }
}

Test(families, a_config_that_is_written_reads_back_as_the_same_model) {
    pool_start(2);
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct err e = {{0}};
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        struct model *m = load(f, cpu(NULL));
        char path[64];
        snprintf(path, sizeof path, "/tmp/lehr-test-families-%ld.gguf", (long)getpid());
        struct gguf_out *o = gguf_out_open(path, &e);
        cr_assert(o, "%s", e.text);
        config_write(&m->config, o);
        hand_copy_tensors(o, f);
        cr_assert(gguf_out_commit(o, &e), "%s", e.text);
        struct model_file *again = model_file_open(path, &e);
        cr_assert(again, "%s", e.text);
        struct model *n = load(again, cpu(NULL));
        float *a = whole_text(m, &x, 40, 1), *b = whole_text(n, &x, 40, 1);
        cr_assert_arr_eq(a, b, (size_t)(x.ids_count * x.V) * sizeof *a, "%s", goldens[g].name);
        free(a), free(b), unlink(path);
        model_free(m), model_free(n), model_file_close(f), model_file_close(again), text_free(&x.bytes);
    }
}

Test(families, what_backward_does_not_mirror_does_not_train) {
    static const char *const training[] = {"granitemoe", "qwen3", "qwen3moe", "olmoe"};
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct err e = {{0}};
        struct model_file *f = open_golden(goldens[g].name);
        struct model_config c;
        cr_assert(config_read(&c, f, &e), "%s", e.text);
        bool trains = false;
        for (size_t i = 0; i < COUNT_OF(training); i++) trains |= !strcmp(goldens[g].name, training[i]);
        cr_assert_eq(config_trains(&c, &e), trains, "%s: %s", goldens[g].name, e.text);
        if (trains) {
            model_file_close(f);
            continue;
        }
        cr_assert(strstr(e.text, "does not train"), "%s", goldens[g].name);
        cr_assert(!model_new(&c, cpu(NULL), DTYPE_F32, 1, &e) && strstr(e.text, goldens[g].arch), "%s", e.text);
        model_file_close(f);
    }
}

Test(families, a_context_beyond_learned_positions_is_refused) {
    struct err e = {{0}};
    struct model_file *f = open_golden("gpt2");
    struct model *m = load(f, cpu(NULL));
    cr_assert(!session_new(m, &(struct session_options){.ctx = 65}, &e) && strstr(e.text, "64 positions"), "%s", e.text);
    model_free(m), model_file_close(f);
}

// A copy of a golden with one more key.
struct key_row {
    const char *golden, *key;
    enum { A_NUMBER, A_WHOLE, A_FLAG, A_TEXT, A_LIST } kind;
    double x;
    const char *says; // beside the key's name
};
static bool any_key(struct span key) { return key.n > 0; }

static void open_with_key(const struct key_row *r, const char *path, struct err *e) {
    static const int32_t list[] = {1, 2};
    struct model_file *f = open_golden(r->golden);
    struct gguf_out *o = gguf_out_open(path, e);
    cr_assert(o, "%s", e->text);
    gguf_out_copy_keys(o, f, any_key);
    if (r->kind == A_NUMBER) gguf_out_f32(o, r->key, (float)r->x);
    if (r->kind == A_WHOLE) gguf_out_u32(o, r->key, (uint32_t)r->x);
    if (r->kind == A_FLAG) gguf_out_bool(o, r->key, r->x != 0);
    if (r->kind == A_TEXT) gguf_out_text(o, r->key, "spiral", 6);
    if (r->kind == A_LIST) gguf_out_i32s(o, r->key, list, COUNT_OF(list));
    hand_copy_tensors(o, f);
    cr_assert(gguf_out_commit(o, e), "%s", e->text);
    model_file_close(f);
}

Test(families, keys_that_change_the_result_are_refused_by_name) {
    static const struct key_row rows[] = {
        {"llama_divisors", "llama.attention.temperature_scale", A_NUMBER, .1, "by position"},
        {"llama_divisors", "llama.attention.temperature_length", A_NUMBER, 8192, "by position"},
        {"llama_divisors", "llama.attention.max_alibi_bias", A_NUMBER, 8, "ALiBi"},
        {"llama_divisors", "llama.attention.clamp_kqv", A_NUMBER, 8, "clamped"},
        {"llama_divisors", "llama.attention.shared_kv_layers", A_NUMBER, 2, "share keys"},
        {"llama_divisors", "llama.attention.output_scale", A_NUMBER, .5, "scaled"},
        {"llama_divisors", "llama.attention.value_scale", A_NUMBER, .5, "scaled"},
        {"llama_divisors", "llama.attention.scale", A_NUMBER, .1, "multiplier"},
        {"llama_divisors", "llama.logit_scale", A_NUMBER, .5, "multiplier"},
        {"llama_divisors", "llama.embedding_scale", A_NUMBER, 12, "multiplier"},
        {"llama_divisors", "llama.residual_scale", A_NUMBER, .2, "multiplier"},
        {"llama_divisors", "llama.attn_logit_softcapping", A_NUMBER, 50, "capped"},
        {"llama_divisors", "llama.final_logit_softcapping", A_NUMBER, 30, "capped"},
        {"llama_divisors", "llama.attention.causal", A_FLAG, 0, "false"},
        {"llama_divisors", "llama.use_parallel_residual", A_FLAG, 1, "a norm for each branch"},
        {"llama_divisors", "llama.rope.scaling.type", A_TEXT, 0, "'spiral'"},
        {"llama_divisors", "llama.rope.scaling.yarn_ext_factor", A_NUMBER, .5, "YaRN"},
        {"llama_divisors", "llama.rope.scaling.yarn_attn_factor", A_NUMBER, .5, "YaRN"},
        {"llama_divisors", "llama.rope.scaling.yarn_log_multiplier", A_NUMBER, .1, "YaRN"},
        {"llama_divisors", "llama.rope.scaling.alpha", A_NUMBER, 1000, "alpha"},
        {"llama_divisors", "llama.rope.dimension_sections", A_LIST, 0, "not known"},
        {"llama_divisors", "llama.rope.dimension_count_swa", A_NUMBER, 4, "not known"},
        {"llama_divisors", "llama.attention.rope_pattern", A_LIST, 0, "not known"},
        {"llama_divisors", "llama.attention.q_lora_rank", A_NUMBER, 8, "not known"},
        {"llama_divisors", "llama.attention.kv_lora_rank", A_NUMBER, 8, "not known"},
        {"llama_divisors", "llama.attention.indexer.top_k", A_NUMBER, 8, "not known"},
        {"llama_divisors", "llama.attention.group_norm_groups", A_NUMBER, 2, "not known"},
        {"llama_divisors", "llama.hyper_connection.count", A_NUMBER, 4, "not known"},
        {"llama_divisors", "llama.ssm.state_size", A_NUMBER, 16, "not known"},
        {"llama_divisors", "llama.swiglu_clamp_exp", A_LIST, 0, "not known"},
        {"llama_divisors", "llama.nextn_predict_layers", A_NUMBER, 1, "further tokens"},
        {"qwen2", "qwen2.attention.sliding_window", A_WHOLE, 9, "sliding-window"},
        {"gpt2", "gpt2.use_parallel_residual", A_FLAG, 1, "a norm for each branch"},
        {"granitemoe", "granitemoe.rope.scaling.finetuned", A_FLAG, 0, "false"},
        {"mixtral", "llama.expert_gating_func", A_NUMBER, 2, "gate of experts"},
        {"mixtral", "llama.expert_weights_scale", A_NUMBER, 2.5, "scaled experts"},
        {"mixtral", "llama.expert_weights_norm", A_FLAG, 0, "false"},
        {"mixtral", "llama.expert_shared_count", A_NUMBER, 1, "shared experts"},
        {"mixtral", "llama.expert_shared_feed_forward_length", A_WHOLE, 12, "shared experts"},
        {"mixtral", "llama.expert_group_count", A_NUMBER, 4, "groups"},
        {"mixtral", "llama.expert_group_used_count", A_NUMBER, 2, "groups"},
        {"mixtral", "llama.leading_dense_block_count", A_NUMBER, 1, "some layers only"},
        {"mixtral", "llama.moe_every_n_layers", A_NUMBER, 2, "some layers only"},
        {"mixtral", "llama.interleave_moe_layer_step", A_NUMBER, 2, "some layers only"},
        {"olmoe", "olmoe.expert_weights_norm", A_FLAG, 1, "true"},
        {"olmoe", "olmoe.attention.clamp_kqv", A_NUMBER, 8, "clamped"},
    };
    pool_start(1);
    char path[64];
    snprintf(path, sizeof path, "/tmp/lehr-test-families-%ld.gguf", (long)getpid());
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct err e = {{0}};
        open_with_key(&rows[i], path, &e);
        struct model_file *f = model_file_open(path, &e);
        cr_assert(f, "%s", e.text);
        struct model *m = model_load(f, cpu("plain"), &e);
        cr_expect(!m, "runs with %s", rows[i].key);
        cr_expect(strstr(e.text, rows[i].key) && strstr(e.text, rows[i].says), "%s: %s", rows[i].key, e.text);
        model_free(m), model_file_close(f), unlink(path);
    }
}
