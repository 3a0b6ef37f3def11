// test_exit.c: leaving a model early: its first layers, norm and head are a model, and learn to be one.
//
// The authority for what the first layers say is a file that has only these; for what is learned, two models: the gradient
// of a loss with an exit is that of the whole plus so many times that of a model of its first layers.
#include "model/internal.h"
#include "tests/batch.h"
#include "tests/hand.h"
#include "tests/ref_model.h"
#include "tests/variant_kit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
                                          "family_llama_divisors", "family_phi3", "model_granite", "family_gemma", "family_llama_biases", "family_mixtral",
                                          "family_olmo2", "family_olmoe", "family_qwen2", "family_qwen3", "family_qwen3moe", "model_llama"};
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
#ifdef PLACE_LONG
    PLACE_LONG;
#endif
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
    cr_assert((waiting > 0) == m->backend->reads_host && model_unsettled_bytes(first) == waiting);
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

// --- learning ------------------------------------------------------------------------------------------------------

static struct train_state *new_state(struct model *m, int64_t rows, int64_t T, size_t memory, const struct objective *aim) {
    struct err e = {{0}};
    struct train_state *t = train_state_new(m, rows, T, memory, &e);
    cr_assert(t, "%s", e.text);
    train_state_aim(t, aim);
    return t;
}

// Loss and gradients of a batch in micro-batches of so many sequences.
static double run_batch(struct train_state *t, const struct batch *b, int64_t sequences, uint32_t drop, double *at_exit) {
    double sum = 0;
    int32_t *start = malloc((size_t)b->rows * sizeof *start);
    train_zero_grads(t);
    for (int64_t at = 0; at < b->rows; at += sequences * b->T) {
        int64_t n = b->rows - at < sequences * b->T ? b->rows - at : sequences * b->T;
        for (int64_t i = 0; i < n; i++) start[i] = b->doc_start[at + i] - (int32_t)at;
        train_drop(t, (struct dropout){.seed = 42, .row = at, .below = drop});
        sum += train_loss(t, &(struct train_batch){n, b->T, b->ids + at, b->targets + at, start}, .125f, NULL);
    }
    train_close_grads(t);
    *at_exit = train_exit_loss(t);
    free(start);
    return sum;
}

static double run_all(struct model *m, const struct batch *b, const struct objective *aim, uint32_t drop, double *at_exit) {
    struct train_state *t = new_state(m, b->rows, b->T, SIZE_MAX, aim);
    double loss = run_batch(t, b, b->rows / b->T, drop, at_exit);
    train_state_free(t);
    return loss;
}

static int64_t size_of(const struct param *p) { return p->mats * p->rows * p->cols; }

// A trainable model of the first layers with the same weights.
static struct model *first_layers(const struct model *m, int64_t layers, enum dtype compute) {
    struct err e = {{0}};
    struct model_config c = m->config;
    c.L = layers, c.exit_layer = 0;
    struct model *first = model_new(&c, cpu(), compute, 1, &e);
    cr_assert(first, "%s", e.text);
    for (int i = 0, k = 0; i < first->n_params; i++, k++) {
        while (strcmp(first->params[i].name, m->params[k].name) != 0) k++;
        float *w = fetch_weights(m, k);
        send_weights(first, i, w);
        free(w);
    }
    model_refresh_copies(first);
    return first;
}

static const struct kind {
    const char *family;
    bool tied;
    int64_t layer;
    uint32_t drop;
    struct objective aim;
} kinds[] = {
    {"granite", true, 2, 0, {.exit_weight = .25}},      {"granite", false, 1, 9000, {.exit_weight = .5, .head_z = .01}},
    {"llama", true, 3, 0, {.exit_weight = 1}},          {"llama", false, 2, 9000, {.exit_weight = .1}},
    {"granitemoe", true, 2, 0, {.exit_weight = .25}},   {"qwen3moe", false, 1, 0, {.exit_weight = 2, .head_z = .01}},
    {"qwen3", true, 1, 0, {.exit_weight = .25}},
};

// Of the layers behind the exit the gradient has not one bit of it; of all else it is the sum. Without its weight it is not.
Test(exit, the_gradient_is_that_of_the_whole_and_so_many_times_that_of_the_first_layers) {
    pool_start(2);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        const struct kind *k = &kinds[i];
        struct model_config c = tiny(k->family, k->tied);
        c.exit_layer = k->layer;
        struct model *m = random_model(&c, DTYPE_F32, 21), *first = first_layers(m, k->layer, DTYPE_F32);
        struct batch b = random_batch(3, 11, c.V, 22);
        struct objective without = k->aim;
        double exit_loss, none;
        without.exit_weight = 0;
        double loss = run_all(m, &b, &without, k->drop, &none), first_loss = run_all(first, &b, &without, k->drop, &exit_loss);
        cr_assert(none == 0 && exit_loss == 0);
        float **whole = malloc((size_t)m->n_params * sizeof *whole);
        for (int p = 0; p < m->n_params; p++) whole[p] = fetch_gradient(m, p);
        double with = run_all(m, &b, &k->aim, k->drop, &exit_loss);
        cr_assert(with == loss && exit_loss == first_loss, "%s: %g and %g, at the exit %g and %g", k->family, with, loss, exit_loss, first_loss);
        for (int p = 0, q = 0; p < m->n_params; p++) {
            bool both = q < first->n_params && !strcmp(m->params[p].name, first->params[q].name);
            float *ours = fetch_gradient(m, p), *part = both ? fetch_gradient(first, q++) : NULL;
            double off = 0, change = 0, norm = 0;
            for (int64_t at = 0; at < size_of(&m->params[p]); at++) {
                double g = (double)whole[p][at], expected = g + (part ? k->aim.exit_weight * (double)part[at] : 0), x = (double)ours[at];
                off += (x - expected) * (x - expected), change += (x - g) * (x - g), norm += expected * expected;
            }
            cr_expect(sqrt(off) <= (both ? 2e-6 * sqrt(norm) : 0), "%s %s: off by %g of %g", k->family, m->params[p].name, sqrt(off), sqrt(norm));
            cr_expect(!both || sqrt(change) > 1e-3 * sqrt(norm), "%s %s: the exit gives it nothing", k->family, m->params[p].name);
            free(ours), free(part);
        }
        for (int p = 0; p < m->n_params; p++) free(whole[p]);
        free(whole), free_batch(&b), model_free(first), model_free(m);
    }
    pool_start(1);
}

// Micro-batches, threads and layers that are computed again.
Test(exit, how_a_batch_is_cut_changes_no_bit) {
#ifdef PLACE_LONG
    PLACE_LONG;
#endif
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        const struct kind *k = &kinds[i];
        struct model_config c = tiny(k->family, k->tied);
        c.exit_layer = k->layer;
        struct model *m = random_model(&c, i % 2 ? DTYPE_BF16 : DTYPE_F32, 40);
        struct batch b = random_batch(8, 6, c.V, 41); // several sequences are a group
        float *expected = malloc(m->grads_bytes), *found = malloc(m->grads_bytes);
        double sum = 0, sum_exit = 0;
        for (int run = 0; run < 12; run++) {
            const int64_t sizes[] = {8, 1, 3, 2}, sequences = sizes[run % 4];
            size_t memory = SIZE_MAX;
            struct recompute again = {0};
            for (int tighter = 0; tighter < run / 2; tighter++) memory = train_state_bytes(&c, b.T, b.T, memory == SIZE_MAX ? memory : memory - 1, &again);
            pool_start(1 + run % 3);
            struct train_state *t = new_state(m, sequences * b.T, b.T, memory, &k->aim);
            double at_exit, now = run_batch(t, &b, sequences, k->drop, &at_exit);
            m->backend->download(found, m->grads_block, m->grads_bytes);
            if (run == 0) memcpy(expected, found, m->grads_bytes), sum = now, sum_exit = at_exit;
            cr_expect(now == sum && at_exit == sum_exit, "%s, run %d: %.17g and %.17g, at the exit %.17g and %.17g", k->family, run, now, sum, at_exit, sum_exit);
            cr_expect(!memcmp(found, expected, m->grads_bytes), "%s, run %d, %lld sequences, %lld halves, %lld wholes", k->family, run, (long long)sequences,
                      (long long)again.halves, (long long)again.wholes);
            cr_assert((again.halves > 0) == (run >= 4));
            train_state_free(t);
        }
        free(expected), free(found), free_batch(&b), model_free(m);
    }
    pool_start(1);
}

// A second closing in the middle of a step, as the noise scale wants, adds what is there and nothing twice.
Test(exit, closing_in_the_middle_of_a_step_adds_nothing_twice) {
    struct model_config c = tiny("granite", true);
    c.exit_layer = 2;
    struct model *m = random_model(&c, DTYPE_F32, 40);
    struct batch b = random_batch(4, 16, c.V, 41);
    struct train_state *t = new_state(m, b.T, b.T, SIZE_MAX, &(struct objective){.exit_weight = .5});
    double at_exit;
    run_batch(t, &b, 1, 0, &at_exit);
    for (int twice = 0; twice < 2; twice++) {
        float *once = fetch_gradient(m, m->head), *norm = fetch_gradient(m, m->out_norm);
        if (twice) {
            train_zero_grads(t);
            for (int64_t at = 0; at < b.rows; at += b.T) {
                int32_t start[16];
                for (int64_t i = 0; i < b.T; i++) start[i] = b.doc_start[at + i] - (int32_t)at;
                train_loss(t, &(struct train_batch){b.T, b.T, b.ids + at, b.targets + at, start}, .125f, NULL);
                train_close_grads(t);
            }
        } else train_close_grads(t);
        float *again = fetch_gradient(m, m->head), *norm_again = fetch_gradient(m, m->out_norm);
        double off = 0, all = 0;
        for (int64_t i = 0; i < c.V * c.C; i++) off += pow((double)once[i] - (double)again[i], 2), all += pow((double)once[i], 2);
        for (int64_t i = 0; i < c.C; i++) off += pow((double)norm[i] - (double)norm_again[i], 2);
        cr_expect(twice ? sqrt(off) < 2e-6 * sqrt(all) : off == 0, "off by %g of %g", sqrt(off), sqrt(all));
        free(once), free(norm), free(again), free(norm_again);
    }
    train_state_free(t), free_batch(&b), model_free(m);
}

Test(exit, evaluation_tells_the_loss_at_the_exit_and_leaves_gradients_alone) {
    struct model_config c = tiny("llama", false);
    c.exit_layer = 2;
    struct model *m = random_model(&c, DTYPE_F32, 60);
    struct batch b = random_batch(2, 8, c.V, 61);
    struct train_state *t = new_state(m, b.rows, b.T, SIZE_MAX, &(struct objective){.exit_weight = .5});
    double learning;
    run_batch(t, &b, 2, 0, &learning);
    float *before = malloc(m->grads_bytes), *after = malloc(m->grads_bytes);
    m->backend->download(before, m->grads_block, m->grads_bytes);
    train_loss(t, &(struct train_batch){b.rows, b.T, b.ids, b.targets, b.doc_start}, 0, NULL);
    m->backend->download(after, m->grads_block, m->grads_bytes);
    cr_expect(train_exit_loss(t) == learning && train_exit_loss(t) == 0);
    cr_expect(!memcmp(before, after, m->grads_bytes));
    free(before), free(after), train_state_free(t), free_batch(&b), model_free(m);
}
