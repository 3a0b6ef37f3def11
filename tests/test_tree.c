// test_tree.c: a tree of guesses that is judged in one pass has, node by node, the bits of plain decoding.
//
// The authority is a session of its own that is fed one token at a time: before a node it forgets what is not the node's
// path. That goes on when a path was taken. Trees are random, of several shapes, and every family, type of cache and level is met.
#include "model/internal.h"
#include "tests/hand.h"
#include "tests/variant_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { NODES = 40, IDS = 600 };

static const struct shape {
    const char *name;
    int up, most_up; // of 8 nodes so many leave the path of the one before them, and how far up at most
} shapes[] = {{"chain", 0, 0}, {"star", 8, NODES}, {"bush", 4, 3}, {"comb", 5, 1}, {"two", 1, NODES}};

struct tree {
    int64_t n;
    int32_t id[NODES], parent[NODES], depth[NODES];
};

static struct tree random_tree(const struct shape *shape, int64_t n, int64_t deepest, int64_t V, uint64_t seed) {
    struct tree t = {.n = n, .parent = {-1}};
    for (int64_t i = 0; i < n; i++) {
        struct rng_row r = rng_row(seed, 5, (uint64_t)i);
        t.id[i] = (int32_t)(rng_row_at(r, 0) % (uint32_t)V);
        if (i == 0) continue;
        int32_t parent = (int32_t)i - 1;
        if ((int)(rng_row_at(r, 1) % 8) < shape->up)
            for (int up = 1 + (int)(rng_row_at(r, 2) % 16) % (shape->most_up + 1); up > 0 && parent > 0; up--) parent = t.parent[parent];
        while (t.depth[parent] + 1 >= deepest && parent > 0) parent = t.parent[parent];
        t.parent[i] = parent;
        t.depth[i] = t.depth[parent] + 1;
    }
    return t;
}

// From the root to a node.
static int64_t path_to(const struct tree *t, int32_t node, int32_t path[NODES]) {
    int64_t n = t->depth[node] + 1;
    for (int64_t i = n - 1; i >= 0; i--, node = t->parent[node]) path[i] = node;
    return n;
}

static void random_ids(int32_t *ids, int64_t n, int64_t V, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)rng_below(seed, 77, (uint64_t)i, (uint64_t)V);
}

static struct session *new_session(struct model *m, struct session_options o) {
    struct err e = {{0}};
    struct session *s = session_new(m, &o, &e);
    cr_assert(s, "%s", e.text);
    return s;
}

static const float *feed(struct session *s, const int32_t *ids, int64_t n, enum feed kind, enum logits_wanted want) {
    struct err e = {{0}};
    const float *z = session_feed(s, ids, n, kind, want, &e);
    cr_assert(z, "%s", e.text);
    return z;
}

static const float *feed_tree(struct session *s, const struct tree *t) {
    struct err e = {{0}};
    const float *z = session_feed_tree(s, t->id, t->parent, t->n, &e);
    cr_assert(z, "%s", e.text);
    return z;
}

struct pair { // of sessions that hold the same text: one is fed trees, the other plainly
    struct session *tree, *plain;
    int64_t V;
    char what[160];
};

static struct pair new_pair(struct model *m, struct session_options o, int64_t prompt, uint64_t seed, const char *what) {
    int32_t ids[IDS];
    struct pair p = {.plain = new_session(m, o), .V = m->config.V};
    o.tree = NODES;
    p.tree = new_session(m, o);
    snprintf(p.what, sizeof p.what, "%s, seed %llu", what, (unsigned long long)seed);
    random_ids(ids, prompt, p.V, seed);
    if (!prompt) return p;
    feed(p.tree, ids, prompt, FEED_PROMPT, LOGITS_NONE);
    feed(p.plain, ids, prompt, FEED_PROMPT, LOGITS_NONE);
    return p;
}
static void free_pair(struct pair *p) { session_free(p->tree), session_free(p->plain); }

static void expect_same(const struct pair *p, const float *a, const float *b, const char *where, int64_t i) {
    cr_assert(!memcmp(a, b, (size_t)p->V * sizeof *a), "%s: %s %lld has other bits", p->what, where, (long long)i);
}

// Every node of a tree against plain feeding, then a path is taken and the text goes on.
static void judge(struct pair *p, const struct tree *t, int32_t taken, uint64_t seed) {
    int64_t before = session_length(p->plain);
    const float *z = feed_tree(p->tree, t);
    cr_assert_eq(session_length(p->tree), before);
    for (int64_t i = 0; i < t->n; i++) {
        session_rewind(p->plain, before + t->depth[i]);
        expect_same(p, feed(p->plain, t->id + i, 1, FEED_GENERATED, LOGITS_LAST), z + i * p->V, "node", i);
    }
    session_rewind(p->plain, before);
    if (taken >= 0) {
        int32_t path[NODES], ids[NODES];
        int64_t n = path_to(t, taken, path);
        for (int64_t i = 0; i < n; i++) ids[i] = t->id[path[i]];
        session_take(p->tree, path, n);
        feed(p->plain, ids, n, FEED_GENERATED, LOGITS_NONE);
    }
    int32_t further[3];
    random_ids(further, 3, p->V, seed + 1);
    for (int64_t i = 0; i < 3; i++)
        expect_same(p, feed(p->tree, further + i, 1, FEED_GENERATED, LOGITS_LAST),
                    feed(p->plain, further + i, 1, FEED_GENERATED, LOGITS_LAST), "what follows", i);
    int64_t now = session_length(p->plain);
    cr_assert_eq(session_length(p->tree), now);
    cr_assert_arr_eq(session_ids(p->tree), session_ids(p->plain), (size_t)now * sizeof(int32_t), "%s", p->what);
}

// Trees of all shapes one after the other on one text, as long as it fits.
static void judge_shapes(struct pair *p, uint64_t seed) {
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        int64_t left = session_capacity(p->tree) - session_length(p->tree) - 3, deepest = left < 9 ? left : 9;
        if (deepest < 2) session_rewind(p->tree, 4), session_rewind(p->plain, 4), deepest = 5;
        struct tree t = random_tree(&shapes[k], 11 + (int64_t)k, deepest, p->V, seed + k);
        snprintf(p->what + strlen(p->what), sizeof p->what - strlen(p->what), ", %s", shapes[k].name);
        judge(p, &t, (int32_t)rng_below(seed, 9, k, 1 + (uint64_t)t.n) - 1, seed + k);
    }
}

static struct model *load(const struct model_file *f, const char *level) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(level, &e);
    struct model *m = b ? model_load(f, b, &e) : NULL;
    cr_assert(m, "%s", e.text);
    return m;
}

static struct model_file *open_file(const char *path) {
    struct err e = {{0}};
    struct model_file *f = model_file_open(path, &e);
    cr_assert(f, "%s", e.text);
    return f;
}

static void judge_file(struct model_file *f, int64_t ctx, const char *name, uint64_t seed) {
    struct model *m = load(f, NULL);
    for (int threads = 1; threads <= 3; threads += 2) {
        pool_start(threads);
        struct pair p = new_pair(m, (struct session_options){.ctx = ctx, .chunk = 16}, threads == 1 ? 5 : 0, seed, name);
        judge_shapes(&p, seed + (uint64_t)threads);
        free_pair(&p);
    }
    model_free(m), model_file_close(f);
}

Test(tree, has_the_bits_of_plain_decoding_in_every_family) {
    static const char *const names[] = {"llama_divisors", "llama_biases", "qwen2", "qwen3", "gemma3", "gpt2", "phi3", "olmo2",
                                        "gemma", "gemma2", "minicpm", "granitemoe", "mixtral", "olmoe", "qwen3moe"};
    for (size_t g = 0; g < COUNT_OF(names); g++) {
        char path[96];
        snprintf(path, sizeof path, "tests/golden/family_%s.gguf", names[g]);
        judge_file(open_file(path), 0, names[g], 100 + g);
    }
    for (int g = 0; g < variant_count; g++)
        judge_file(variant_open(hand_path("."), variants[g].name), variants[g].ctx, variants[g].name, 200 + (uint64_t)g);
    hand_cleanup();
}

static const char *const levels[] = {"plain", "avx2", "avx512", "amx", "neon", "dotprod", "i8mm"};

Test(tree, has_the_bits_of_plain_decoding_with_every_cache_on_every_level) {
#ifdef PLACE_LONG
    PLACE_LONG;
#endif
    static const enum dtype caches[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    struct model_file *f = open_file("data/stories-1m.gguf");
    for (size_t l = 0; l < COUNT_OF(levels); l++) {
        struct err e = {{0}};
        if (!backend_cpu(levels[l], &e)) continue;
        struct model *m = load(f, levels[l]);
        for (size_t k = 0; k < COUNT_OF(caches); k++) {
            char what[64];
            snprintf(what, sizeof what, "%s cache on %s", dtype_row(caches[k])->name, levels[l]);
            pool_start(1 + (int)k % 3);
            // Sums over keys are made in parts of 256: the trees lie before, at and behind the end of one.
            int64_t prompt = l % 2 ? 17 : 235;
            struct pair p = new_pair(m, (struct session_options){.ctx = 400, .kv = caches[k], .values = &caches[(k + l) % COUNT_OF(caches)]},
                                     prompt, 300 + k, what);
            judge_shapes(&p, 310 * (l + 1) + k);
            free_pair(&p);
        }
        model_free(m);
    }
    model_file_close(f);
}

// Wide and deep ones: one run of 40, 40 runs of one.
Test(tree, is_as_wide_and_deep_as_the_session_has_room_for) {
    struct model_file *f = open_file("data/stories-1m.gguf");
    struct model *m = load(f, NULL);
    pool_start(2);
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        struct pair p = new_pair(m, (struct session_options){.ctx = 64, .kv = DTYPE_F16}, 20, 400 + k, shapes[k].name);
        struct tree t = random_tree(&shapes[k], NODES, 41, p.V, 410 + k);
        judge(&p, &t, (int32_t)t.n - 1, 420 + k);
        free_pair(&p);
    }
    model_free(m), model_file_close(f);
}

// What the tests above would see if branches were not kept apart, or a path were not put back into the cache.
Test(tree, is_not_a_chain_and_the_control_shows_it) {
    struct model_file *f = open_file("data/stories-1m.gguf");
    struct model *m = load(f, NULL);
    struct pair p = new_pair(m, (struct session_options){.ctx = 64, .all_logits = NODES}, 9, 500, "control");
    struct tree t = random_tree(&shapes[2], 16, 9, p.V, 501);
    float *z = malloc((size_t)(t.n * p.V) * sizeof *z);
    memcpy(z, feed_tree(p.tree, &t), (size_t)(t.n * p.V) * sizeof *z);
    const float *chain = feed(p.plain, t.id, t.n, FEED_GENERATED, LOGITS_ALL);
    int64_t first = 1;
    while (t.parent[first] == first - 1) first++;
    cr_assert(first < t.n);
    expect_same(&p, z, chain, "node", 0);
    for (int64_t i = first; i < t.n; i++)
        cr_expect(memcmp(z + i * p.V, chain + i * p.V, (size_t)p.V * sizeof *z), "node %lld does not show its branch", (long long)i);

    // Two leaves of one root: the cache holds the second one's keys. Going on behind the first as if they were its own differs.
    struct tree fork = {3, {7, 11, 13}, {-1, 0, 0}, {0, 1, 1}};
    session_rewind(p.plain, 9);
    feed_tree(p.tree, &fork);
    session_take(p.tree, (const int32_t[]){0, 1}, 2);
    feed(p.plain, (const int32_t[]){7, 13}, 2, FEED_GENERATED, LOGITS_NONE);
    const int32_t next = 17;
    memcpy(z, feed(p.tree, &next, 1, FEED_GENERATED, LOGITS_LAST), (size_t)p.V * sizeof *z);
    cr_expect(memcmp(z, feed(p.plain, &next, 1, FEED_GENERATED, LOGITS_LAST), (size_t)p.V * sizeof *z));
    free(z), free_pair(&p), model_free(m), model_file_close(f);
}

static void refused(struct session *s, const int32_t *ids, const int32_t *parent, int64_t n, const char *why) {
    struct err e = {{0}};
    int64_t before = session_length(s);
    cr_assert_null(session_feed_tree(s, ids, parent, n, &e));
    cr_expect(strstr(e.text, why), "\"%s\" does not say \"%s\"", e.text, why);
    cr_expect_eq(session_length(s), before);
}

Test(tree, that_does_not_fit_is_refused_with_a_sentence) {
    struct model_file *f = open_file("data/stories-1m.gguf");
    struct model *m = load(f, NULL);
    struct err e = {{0}};
    struct session *s = new_session(m, (struct session_options){.ctx = 8, .tree = 4}), *none = new_session(m, (struct session_options){.ctx = 8});
    const int32_t ids[] = {1, 2, 3, 4, 5}, chain[] = {-1, 0, 1, 2, 3}, star[] = {-1, 0, 0, 0, 0};
    feed(s, ids, 5, FEED_PROMPT, LOGITS_NONE);
    refused(s, ids, chain, 4, "the context is full: a path of 4 tokens after 5");
    refused(s, ids, star, 5, "a tree of 5 nodes");
    refused(s, ids, star, 0, "a tree of 0 nodes");
    refused(none, ids, star, 1, "a tree of 1 nodes");
    refused(s, (const int32_t[]){1, 100000, 2}, star, 3, "outside the vocabulary");
    cr_expect(session_feed_tree(s, ids, chain, 3, &e), "%s", e.text);
    cr_expect(session_feed_tree(s, ids, star, 4, &e), "%s", e.text);
    cr_expect_null(session_new(m, &(struct session_options){.tree = -1}, &e));
    cr_expect_null(session_new(m, &(struct session_options){.tree = (int64_t)1 << 40}, &e));
    cr_expect_gt(session_bytes(m, &(struct session_options){.ctx = 8, .tree = 4}), session_bytes(m, &(struct session_options){.ctx = 8}));
    session_free(s), session_free(none), model_free(m), model_file_close(f);
}

Test(tree, ids_are_the_text_however_it_was_fed_and_may_be_fed_again) {
    struct model_file *f = open_file("data/stories-1m.gguf");
    struct model *m = load(f, NULL);
    struct session *s = new_session(m, (struct session_options){.ctx = 32, .chunk = 3, .tree = 8});
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7}, parent[] = {-1, 0, 1, 0, 3}, after[] = {1, 2, 9, 6, 7, 3};
    feed(s, ids, 7, FEED_PROMPT, LOGITS_NONE);
    session_rewind(s, 2);
    feed(s, (const int32_t[]){9}, 1, FEED_GENERATED, LOGITS_NONE);
    struct err e = {{0}};
    cr_assert(session_feed_tree(s, (const int32_t[]){6, 1, 2, 7, 3}, parent, 5, &e), "%s", e.text);
    session_take(s, (const int32_t[]){0, 3, 4}, 3);
    cr_assert_eq(session_length(s), 6);
    cr_expect_arr_eq(session_ids(s), after, sizeof after);
    session_rewind(s, 0);
    feed(s, session_ids(s), 6, FEED_PROMPT, LOGITS_NONE);
    cr_expect_arr_eq(session_ids(s), after, sizeof after);
    session_free(s), model_free(m), model_file_close(f);
}

struct seen { int64_t calls, rows; };
static void see(void *arg, int param, struct tensor x, const int32_t *chosen, int64_t n_chosen) {
    struct seen *seen = arg;
    (void)param, (void)chosen, (void)n_chosen;
    seen->calls++, seen->rows += x.rows;
}

Test(tree, allocates_nothing_and_shows_an_observer_each_row_once) {
    struct model_file *f = open_file("data/stories-1m.gguf");
    struct model *m = load(f, NULL);
    pool_start(2);
    struct pair p = new_pair(m, (struct session_options){.ctx = 64, .all_logits = 16}, 9, 600, "watched");
    struct tree t = random_tree(&shapes[2], 16, 9, p.V, 601);
    int32_t path[NODES];
    int64_t n = path_to(&t, 9, path);
    feed_tree(p.tree, &t);
    mem_freeze(true);
    feed_tree(p.tree, &t);
    session_take(p.tree, path, n);
    mem_freeze(false);
    struct seen tree = {0, 0}, plain = {0, 0};
    session_observe(p.tree, &(struct observer){see, &tree});
    session_observe(p.plain, &(struct observer){see, &plain});
    feed_tree(p.tree, &t);
    feed(p.plain, t.id, t.n, FEED_GENERATED, LOGITS_ALL);
    cr_expect(tree.calls == plain.calls && tree.rows == plain.rows && tree.calls > 0);
    free_pair(&p), model_free(m), model_file_close(f);
}
