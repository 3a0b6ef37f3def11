// test_exit.c: leaving a model early: its first layers, norm and head are a model, and learn to be one.
//
// The authority for what the first layers say is a file that has only these; for what is learned, two models: the gradient
// of a loss with an exit is that of the whole plus so many times that of a model of its first layers.
#include "model/internal.h"
#include "tests/hand.h"
#include "tests/ref_model.h"
#include "tests/variant_kit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct backend *cpu(void) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(NULL, &e);
    cr_assert(b, "%s", e.text);
    return b;
}

static void random_ids(int32_t *ids, int64_t n, int64_t V, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(seed, 77, (uint64_t)i, (uint64_t)V);
}

// --- the first layers ----------------------------------------------------------------------------------------------

enum { IDS = 40 };
static int64_t length(int64_t ctx) { return ctx && ctx < IDS ? ctx : IDS; }

// All logits of a text, half of it read as a prompt. Free with free.
static float *say(struct model *m, const int32_t *ids, int64_t ctx) {
    struct err e = {{0}};
    const int64_t V = m->config.V, n = length(ctx);
    float *out = malloc((size_t)(n * V) * sizeof *out);
    struct session *s = session_new(m, &(struct session_options){.ctx = ctx, .all_logits = n, .chunk = 16}, &e);
    cr_assert(s, "%s", e.text);
    for (int64_t at = 0; at < n; at += n / 2) {
        const float *z = session_feed(s, ids + at, n / 2, at ? FEED_GENERATED : FEED_PROMPT, LOGITS_ALL, &e);
        cr_assert(z, "%s", e.text);
        memcpy(out + at * V, z, (size_t)(n / 2 * V) * sizeof *z);
    }
    session_free(s);
    return out;
}

// A file of the first layers alone: the keys that say so, and the tensors of these and of no layer.
static void write_first(const struct model_file *f, const struct model_config *of, int64_t layers, const char *path) {
    struct err e = {{0}};
    struct model_config c = *of;
    struct gguf_out *o = gguf_out_open(path, &e);
    cr_assert(o, "%s", e.text);
    c.L = layers;
    c.exit_layer = 0;
    config_write(&c, o);
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < model_file_tensor_count(f); i++) {
            const struct file_tensor *t = model_file_tensor_at(f, i);
            if (!strncmp(t->name, "blk.", 4) && strtol(t->name + 4, NULL, 10) >= layers) continue;
            if (pass == 0) gguf_out_tensor(o, t->name, t->dtype, t->n_dims, t->size);
            else gguf_out_data(o, t->data, t->bytes);
        }
    cr_assert(gguf_out_commit(o, &e), "%s", e.text);
}

// Every proper prefix of a model says what a file of its layers says, and the model what it said before.
static void check_prefixes(const struct model_file *f, int64_t ctx, const char *name) {
    struct err e = {{0}};
    struct model *m = model_load(f, cpu(), &e);
    cr_assert(m, "%s: %s", name, e.text);
    int32_t ids[IDS];
    random_ids(ids, IDS, m->config.V, 6);
    const size_t bytes = (size_t)(length(ctx) * m->config.V) * sizeof(float);
    float *whole = say(m, ids, ctx);
    for (int64_t n = 1; n < m->config.L; n++) {
        const char *path = hand_path("first.gguf");
        write_first(f, &m->config, n, path);
        struct model_file *g = model_file_open(path, &e);
        struct model *alone = g ? model_load(g, cpu(), &e) : NULL;
        cr_assert(alone, "%s: %s", name, e.text);
        struct model *first = model_prefix(m, n);
        cr_assert_eq(config_params(&first->config), config_params(&alone->config), "%s", name);
        float *expected = say(alone, ids, ctx), *found = say(first, ids, ctx);
        cr_expect(!memcmp(found, expected, bytes), "%s: %lld layers", name, (long long)n);
        cr_expect(memcmp(found, whole, bytes), "%s: %lld layers say what all say", name, (long long)n);
        free(expected), free(found);
        model_free(first), model_free(alone), model_file_close(g);
        float *again = say(m, ids, ctx);
        cr_expect(!memcmp(again, whole, bytes), "%s: the model says something else after %lld of its layers", name, (long long)n);
        free(again);
    }
    free(whole), model_free(m);
}

Test(exit, the_first_layers_are_the_model_of_a_file_that_has_only_these) {
    static const char *const goldens[] = {"family_gemma2", "family_gemma3", "family_gpt2", "family_minicpm", "family_granitemoe",
                                          "family_llama_divisors", "family_phi3", "model_granite"};
    struct err e = {{0}};
    char path[160];
    pool_start(2);
    for (size_t i = 0; i < COUNT_OF(goldens); i++) {
        snprintf(path, sizeof path, "tests/golden/%s.gguf", goldens[i]);
        struct model_file *f = model_file_open(path, &e);
        cr_assert(f, "%s", e.text);
        check_prefixes(f, 0, goldens[i]);
        model_file_close(f);
    }
    struct model_file *f = model_file_open("data/stories-1m.gguf", &e); // its weights are packed
    cr_assert(f, "%s", e.text);
    check_prefixes(f, 64, "stories");
    model_file_close(f);
    hand_cleanup();
    pool_start(1);
}

// With windows, layers without rope, and rope that follows from the context.
Test(exit, so_are_those_of_further_families) {
    char folder[64], path[160];
    snprintf(folder, sizeof folder, "/tmp/lehr-test-exit-%ld", (long)getpid());
    cr_assert(mkdir(folder, 0700) == 0);
    for (int i = 0; i < variant_count; i++) {
        struct model_file *f = variant_open(folder, variants[i].name);
        check_prefixes(f, variants[i].ctx, variants[i].name);
        model_file_close(f);
    }
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
    hand_cleanup();
}

// The weights stay in the file until either of the two settles them, which settles both.
Test(exit, a_prefix_settles_the_model_it_is_of) {
    struct err e = {{0}};
    struct model_file *f = model_file_open("data/stories-1m.gguf", &e);
    struct model *m = f ? model_load(f, cpu(), &e) : NULL;
    cr_assert(m, "%s", e.text);
    struct model *first = model_prefix(m, 1);
    const size_t waiting = model_unsettled_bytes(m);
    cr_assert(waiting > 0 && model_unsettled_bytes(first) == waiting);
    cr_assert(model_settle(first, &e), "%s", e.text);
    cr_assert(model_unsettled_bytes(m) == 0 && model_unsettled_bytes(first) == 0);
    model_free(first), model_free(m), model_file_close(f);
}

static struct model_config tiny(const char *family, bool tied) {
    struct model_config c = {.family = family_find(family), .C = 40, .L = 4, .H = 6, .G = 3, .D = 12, .F = 64, .V = 47, .ctx = 64, .tied = tied, .rope_base = 100};
    if (c.family->needs & HAS(router)) c.E = 5, c.used = 2;
    config_derive(&c);
    c.init_std = .2f;
    return c;
}

static struct model *random_model(const struct model_config *c, enum dtype compute, uint64_t seed) {
    struct err e = {{0}};
    struct model *m = model_new(c, cpu(), compute, seed, &e);
    cr_assert(m, "%s", e.text);
    for (int i = 0; i < m->n_params; i++) {
        if (m->params[i].init_std != 0) continue;
        float *w = fetch_weights(m, i);
        for (int64_t k = 0; k < m->params[i].cols; k++) w[k] += .2f * (float)rng_normal(seed, 1000 + (uint64_t)i, (uint64_t)k);
        send_weights(m, i, w);
        free(w);
    }
    return m;
}

Test(exit, the_layer_is_in_the_file_or_the_file_is_refused) {
    static const struct {
        int64_t layer;
        const char *says; // NULL: it is read
    } rows[] = {{0, NULL}, {1, NULL}, {3, NULL}, {4, "exit layer is 4"}, {3000, "lehr.exit_layer"}};
    struct model_config c = tiny("granite", true);
    struct model *m = random_model(&c, DTYPE_F32, 3);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct err e = {{0}};
        const char *path = hand_path("model.gguf");
        struct gguf_out *o = gguf_out_open(path, &e);
        c.exit_layer = rows[i].layer;
        config_write(&c, o);
        model_declare(m, DTYPE_F32, o, NULL);
        model_write_data(m, DTYPE_F32, o);
        cr_assert(gguf_out_commit(o, &e), "%s", e.text);
        struct model_file *f = model_file_open(path, &e);
        struct model_config back;
        cr_assert((meta_kind(f, "lehr.exit_layer") != META_ABSENT) == (rows[i].layer > 0));
        cr_assert(config_read(&back, f, &e) == !rows[i].says, "%lld: %s", (long long)rows[i].layer, e.text);
        cr_assert(rows[i].says ? strstr(e.text, rows[i].says) != NULL : back.exit_layer == rows[i].layer, "%lld: %s", (long long)rows[i].layer, e.text);
        model_file_close(f);
    }
    model_free(m);
    hand_cleanup();
}
