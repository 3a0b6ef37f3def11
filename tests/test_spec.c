// test_spec.c: guesses change nothing but speed, whoever makes them.
//
// What is held against plain decoding is the list of ids and the session that is left behind, over drafters that are right, wrong, random,
// lying about their chances, or failing; over temperatures, filters, threads, caches; on the model that ships and on
// small random ones. The verifiers other than coupled are held to the exact distribution of two tokens.
#include "gen/spec.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MADE = 40, ROWS = 12 };

// ---- drafters of the test -------------------------------------------------------------------------------------------

// Knows the text that plain decoding made, from the first id of it on, and guesses it with some chance; trees get wrong siblings.
struct oracle {
    struct drafter base;
    const int32_t *text; // prompt and what was made
    size_t n;
    int64_t V;
    double right;        // how often a guess is the right one
    bool tree, fails, lies;
    uint64_t drawn, drafts, guesses;
};

static bool oracle_draft(struct drafter *self, const struct draft_ask *ask, struct draft *d, struct err *err) {
    struct oracle *o = (struct oracle *)self;
    if (o->fails && o->drafts >= 3) return err_set(err, "this drafter was made to fail");
    o->drafts++;
    int32_t path = 0;
    for (int32_t depth = 0; depth < ask->deepest && d->n <= ask->most; depth++) {
        size_t at = ask->n + (size_t)depth;
        bool right = rng_uniform(1, 2, o->drawn++) < o->right && at < o->n;
        int32_t id = right ? o->text[at] : (int32_t)rng_below(1, 3, o->drawn++, (uint64_t)o->V);
        float p = o->lies ? (right ? 0.01f : 0.99f) : right ? 0.9f : 0.2f;
        int32_t siblings = o->tree ? (int32_t)rng_below(1, 4, o->drawn++, 4) : 0;
        for (int32_t i = 0; i < siblings && d->n < ask->most; i++) { // before the path, each with a child of its own
            int32_t at_side = draft_add(d, path, (int32_t)rng_below(1, 5, o->drawn++, (uint64_t)o->V), 0.1f);
            if (d->n < ask->most) draft_add(d, at_side, (int32_t)rng_below(1, 6, o->drawn++, (uint64_t)o->V), 0.1f);
        }
        path = draft_add(d, path, id, p);
        if (ask->go_on && !ask->go_on(ask->arg, d)) break;
    }
    o->guesses += (uint64_t)d->n - 1;
    return true;
}

static void oracle_free(struct drafter *self) { (void)self; }

// ---- a text, plainly and with guesses -------------------------------------------------------------------------------

struct kit {
    const struct backend *backend;
    struct model_file *file;
    struct model *model;
    struct tokenizer *tokenizer;
};

static struct kit shipped(void) {
    struct err err;
    pool_start(1);
    struct kit k = {.backend = backend_cpu(NULL, &err)};
    k.file = model_file_open("data/stories-1m.gguf", &err);
    cr_assert(k.backend && k.file, "%s", err.text);
    k.model = model_load(k.file, k.backend, &err);
    k.tokenizer = tokenizer_of_model(k.file, NULL, &err);
    cr_assert(k.model && k.tokenizer, "%s", err.text);
    return k;
}

static void kit_free(struct kit *k) {
    model_free(k->model);
    tokenizer_free(k->tokenizer);
    if (k->file) model_file_close(k->file);
    pool_start(1);
}

static struct session *open_with(struct model *m, enum dtype kv) {
    struct err err;
    struct session *s = session_new(m, &(struct session_options){.ctx = 256, .all_logits = ROWS, .tree = ROWS, .kv = kv}, &err);
    cr_assert(s, "%s", err.text);
    return s;
}

static bool keep_id(void *arg, const struct token_event *e) {
    if (e->id >= 0) ids_add(arg, e->id);
    return true;
}

static void make(struct kit *k, struct session *s, const struct sampler_options *so, const struct ids *prompt, int64_t n, struct spec *spec, struct ids *out) {
    struct err err;
    struct generate_stats stats;
    struct sampler *sampler = sampler_new(so, tokenizer_vocab(k->tokenizer));
    struct generate_options g = {.n = n, .ignore_eos = true, .logprobs = -1, .spec = spec};
    cr_assert(generate(s, k->tokenizer, sampler, prompt->id, prompt->count, &g, keep_id, out, &stats, &err), "%s", err.text);
    sampler_free(sampler);
}

static struct ids encode(const struct kit *k, const char *text) {
    struct ids ids = {0};
    tokenizer_encode(k->tokenizer, text, strlen(text), TOKENIZE_BOS, &ids);
    return ids;
}

static bool same_ids(const struct ids *a, const struct ids *b) {
    return a->count == b->count && !memcmp(a->id, b->id, a->count * sizeof *a->id);
}

static const struct verifier *coupled(void) { return &verifiers[0]; }

static struct spec_options with(struct session *s, const struct kit *k, struct drafter *d) {
    return (struct spec_options){.session = s, .tokenizer = k->tokenizer, .drafters = {d}, .n_drafters = 1, .verifier = coupled(), .rows = ROWS, .most = 7, .wide = 1};
}

static struct sampler_options filters(int i) {
    struct sampler_options o = sampler_defaults;
    o.seed = 17;
    if (i == 1) o.top_k = 0, o.top_p = 1, o.min_p = 0;
    if (i == 2) o.repeat_penalty = 1.3, o.frequency_penalty = 0.2, o.repeat_last = 20;
    if (i == 3) o.mirostat = 1;
    if (i == 4) o.mirostat = 2;
    if (i == 5) o.typical = 0.7;
    return o;
}

// The drafters of one setting against plain decoding; the text goes on behind it, so that what is left in the session counts too.
static void compare_all(struct kit *k, const struct sampler_options *so, const char *text, enum dtype kv, const char *what) {
    struct ids prompt = encode(k, text), plain = {0}, more = {0};
    struct session *s = open_with(k->model, kv);
    make(k, s, so, &prompt, MADE, NULL, &plain);
    struct ids next = {&plain.id[MADE - 1], 1, 1};
    make(k, s, so, &next, 8, NULL, &more);
    struct ids all = {0};
    for (size_t i = 0; i < prompt.count; i++) ids_add(&all, prompt.id[i]);
    for (size_t i = 0; i < plain.count; i++) ids_add(&all, plain.id[i]);
    for (int kind = 0; kind < 8; kind++) {
        struct oracle o = {.base = {"oracle", 0, oracle_draft, oracle_free}, .text = all.id, .n = all.count, .V = tokenizer_vocab(k->tokenizer),
                           .right = kind == 0 ? 0 : kind == 1 ? 1 : 0.7, .tree = kind == 3 || kind == 4, .fails = kind == 5, .lies = kind == 6};
        struct drafter *ngram = drafter_ngram();
        struct spec_options options = with(s, k, kind == 7 ? ngram : &o.base);
        options.fixed = kind != 2 && kind != 4;
        options.wide = o.tree ? 4 : 1;
        struct spec *spec = spec_new(&options);
        struct ids guessed = {0}, behind = {0};
        session_rewind(s, 0);
        make(k, s, so, &prompt, MADE, spec, &guessed);
        cr_assert(same_ids(&plain, &guessed), "%s: drafter %d changes the text", what, kind);
        cr_assert_eq(session_length(s), (int64_t)(prompt.count + MADE - 1), "%s: drafter %d leaves %lld tokens", what, kind, (long long)session_length(s));
        make(k, s, so, &next, 8, NULL, &behind);
        cr_assert(same_ids(&more, &behind), "%s: drafter %d spoils the session", what, kind);
        struct spec_stats t = spec_stats(spec);
        if (kind == 1) cr_expect(t.held + ROWS > t.guesses && t.passes < MADE / 4, "%s: of an oracle %lld of %lld hold", what, (long long)t.held, (long long)t.guesses);
        if (kind == 0) cr_expect(t.guesses > 0 && t.held * 20 < t.guesses, "%s: noise held %lld of %lld", what, (long long)t.held, (long long)t.guesses);
        cr_expect((spec_trouble(spec) != NULL) == o.fails);
        spec_free(spec);
        ngram->free(ngram);
        ids_free(&guessed);
        ids_free(&behind);
    }
    session_free(s);
    ids_free(&prompt), ids_free(&plain), ids_free(&more), ids_free(&all);
}

Test(spec, no_drafter_changes_a_token_at_any_temperature_or_filter) {
    static const double temps[] = {0, 0.7, 1, 1.5};
    struct kit k = shipped();
    for (size_t t = 0; t < COUNT_OF(temps); t++)
        for (int f = 0; f < 6; f++) {
            char what[64];
            struct sampler_options so = filters(f);
            so.temp = temps[t];
            if (t == 0 && f > 2) continue; // they have no say then
            snprintf(what, sizeof what, "temperature %g, filters %d", temps[t], f);
            compare_all(&k, &so, f % 2 ? "One day a cat and a cat and a cat" : "Once there was", DTYPE_F16, what);
        }
    kit_free(&k);
}

Test(spec, nor_with_other_threads_or_caches) {
    static const enum dtype caches[] = {DTYPE_F32, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    struct kit k = shipped();
    struct sampler_options so = filters(0);
    for (size_t i = 0; i < COUNT_OF(caches); i++) compare_all(&k, &so, "Once there was", caches[i], dtype_row(caches[i])->name);
    for (int threads = 2; threads <= 3; threads++) {
        pool_start(threads);
        compare_all(&k, &so, "It was", DTYPE_F16, "more threads");
    }
    kit_free(&k);
}

// ---- draft models ---------------------------------------------------------------------------------------------------

static struct model *random_model(const struct kit *k, int64_t V, int64_t C, uint64_t seed) {
    struct err err;
    struct model_config c;
    cr_assert(config_from_size(&c, family_find("llama"), "1M", V, 256, &err), "%s", err.text);
    c.C = C, c.L = 1, c.H = c.G = c.D = c.F = 0, c.base_width = 0, c.init_std = 0.3f;
    config_derive(&c);
    struct model *m = model_new(&c, k->backend, DTYPE_F32, seed, &err);
    cr_assert(m, "%s", err.text);
    return m;
}

static struct accept *random_head(int64_t C) {
    struct accept *a = accept_new(C, 3);
    for (size_t i = 0; i < accept_count(C, 3); i++) a->weights[i] = (float)(rng_uniform(5, 1, i) - 0.5) * 0.3f;
    return a;
}

// A draft model of another vocabulary, in chains, staged and in trees, with room for the text and without; the last two by the pace,
// which has a head to listen to that says anything.
Test(spec, a_draft_model_of_any_vocabulary_changes_nothing) {
    struct kit k = shipped();
    struct err err;
    struct tokenizer *bytes = tokenizer_byte();
    struct model *other = random_model(&k, tokenizer_vocab(bytes), 64, 5);
    struct ids prompt = encode(&k, "Once there was a dog. Once there was a dog. Once there");
    for (int kind = 0; kind < 14; kind++) {
        bool own = kind % 2 == 0, narrow = kind >= 6 && kind < 12, chain = kind / 2 % 3 == 0;
        struct sampler_options so = filters(kind % 3);
        so.temp = kind % 4 == 3 ? 0 : 1;
        struct session *s = open_with(k.model, DTYPE_F16);
        const struct tokenizer *t = own ? k.tokenizer : bytes;
        struct session *draft = session_new(own ? k.model : other, &(struct session_options){.ctx = narrow ? 76 : 0, .all_logits = ROWS, .tree = ROWS, .hidden = chain}, &err);
        struct vocab_map *map = vocab_map_new(t, k.tokenizer, 0, &err);
        cr_assert(draft && map, "%s", err.text);
        struct accept *head = chain ? random_head(session_width(draft)) : NULL;
        struct draft_model m = {.session = draft, .tokenizer = t, .target_tokenizer = k.tokenizer, .map = map, .staged = kind / 2 % 3 == 1, .accept = head, .cost = 0.1};
        struct drafter *d = drafter_model(&m);
        struct spec_options options = with(s, &k, d);
        options.fixed = kind < 12;
        options.wide = kind / 2 % 3 == 2 ? 4 : 1;
        struct spec *spec = spec_new(&options);
        struct ids plain = {0}, guessed = {0};
        make(&k, s, &so, &prompt, 60, NULL, &plain);
        session_rewind(s, 0);
        make(&k, s, &so, &prompt, 60, spec, &guessed);
        struct spec_stats stats = spec_stats(spec);
        cr_assert(same_ids(&plain, &guessed), "kind %d changes the text", kind);
        cr_expect((stats.guesses > 0 || !options.fixed) && !spec_trouble(spec), "kind %d: %s", kind, spec_trouble(spec) ? spec_trouble(spec) : "nothing was guessed");
        if (own && options.fixed && !narrow && so.mirostat == 0 && options.wide == 1 && kind % 3 != 2)
            cr_expect(stats.held > stats.guesses * 9 / 10, "kind %d: as its own draft a model holds %lld of %lld", kind, (long long)stats.held, (long long)stats.guesses);
        spec_free(spec);
        d->free(d);
        accept_free(head);
        vocab_map_free(map);
        session_free(draft);
        session_free(s);
        ids_free(&plain), ids_free(&guessed);
    }
    ids_free(&prompt);
    model_free(other);
    tokenizer_free(bytes);
    kit_free(&k);
}

// Every number of first layers that there is, by a fixed length and by the pace, with room for the text and without; and from a file whose weights
// nobody has settled yet.
Test(spec, the_first_layers_of_a_model_change_nothing_of_what_it_says) {
    struct err err;
    for (int kind = 0; kind < 16; kind++) {
        struct kit k = shipped();
        struct ids prompt = encode(&k, "Once there was a dog. Once there");
        struct sampler_options so = filters(kind / 4);
        so.temp = kind % 2 ? 1 : 0;
        bool narrow = kind % 4 == 3;
        int64_t layers = 1 + kind % (k.model->config.L - 1);
        struct model *first = model_prefix(k.model, layers);
        struct session *s = open_with(k.model, DTYPE_F16);
        struct session *draft = session_new(first, &(struct session_options){.ctx = narrow ? 60 : 0, .all_logits = ROWS, .tree = ROWS}, &err);
        cr_assert(draft, "%s", err.text);
        struct vocab_map *map = vocab_map_own(k.tokenizer);
        struct drafter *d = drafter_model(&(struct draft_model){.session = draft, .tokenizer = k.tokenizer, .target_tokenizer = k.tokenizer, .map = map, .name = "exit", .cost = 0.5});
        cr_assert_str_eq(d->name, "exit");
        struct spec_options options = with(s, &k, d);
        options.fixed = kind < 12;
        struct spec *spec = spec_new(&options);
        struct ids plain = {0}, guessed = {0};
        make(&k, s, &so, &prompt, 60, spec, &guessed);
        session_rewind(s, 0);
        make(&k, s, &so, &prompt, 60, NULL, &plain);
        struct spec_stats stats = spec_stats(spec);
        cr_assert(same_ids(&plain, &guessed), "kind %d changes the text", kind);
        cr_expect((stats.guesses > 0 || !options.fixed) && !spec_trouble(spec), "kind %d: %s", kind, spec_trouble(spec) ? spec_trouble(spec) : "nothing was guessed");
        cr_expect(stats.held > 0 || !options.fixed, "kind %d: of %lld guesses none held", kind, (long long)stats.guesses);
        if (!narrow && stats.guesses) cr_expect_arr_eq(session_ids(draft), prompt.id, prompt.count * sizeof *prompt.id, "kind %d reads another text", kind);
        spec_free(spec);
        d->free(d);
        vocab_map_free(map);
        session_free(draft), session_free(s);
        model_free(first);
        ids_free(&plain), ids_free(&guessed), ids_free(&prompt);
        kit_free(&k);
    }
}

// ---- verifiers on models --------------------------------------------------------------------------------------------

enum { SMALL = 12, PAIRS = SMALL * SMALL, DRAWS = 6000 };

static double critical(double df) { // one false alarm in a million (Wilson-Hilferty, z = 4.75)
    double a = 2 / (9 * df);
    return df * pow(1 - a + 4.75 * sqrt(a), 3);
}

// Pairs of tokens behind a prompt, by the model itself.
static void exact_pairs(struct model *m, const struct sampler_options *so, int32_t first, double *p) {
    struct err err;
    struct candidate one[SMALL], two[SMALL];
    struct session *s = session_new(m, &(struct session_options){.ctx = 8}, &err);
    struct sampler *sampler = sampler_new(so, SMALL);
    memset(p, 0, PAIRS * sizeof *p);
    const float *z = session_feed(s, &first, 1, FEED_GENERATED, LOGITS_LAST, &err);
    size_t n = sampler_distribution(sampler, z, one);
    for (size_t i = 0; i < n; i++) {
        session_rewind(s, 1);
        z = session_feed(s, &one[i].id, 1, FEED_GENERATED, LOGITS_LAST, &err);
        size_t m2 = sampler_distribution(sampler, z, two);
        for (size_t j = 0; j < m2; j++) p[one[i].id * SMALL + two[j].id] = (double)one[i].p * (double)two[j].p;
    }
    sampler_free(sampler);
    session_free(s);
}

static double chi_squared(const long *seen, const double *p, long draws, double *df) {
    double sum = 0, rest_p = 0, rest = 0;
    *df = -1;
    for (int i = 0; i < PAIRS; i++) {
        double expected = p[i] * (double)draws;
        if (expected < 5) {
            rest_p += p[i], rest += (double)seen[i];
            continue;
        }
        sum += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
        ++*df;
    }
    double expected = rest_p * (double)draws;
    if (expected >= 5) sum += (rest - expected) * (rest - expected) / expected, ++*df;
    else if (rest > expected + 40) sum = INFINITY;
    return sum;
}

// Two tokens by a verifier whose guesses come from `draft`: counts of pairs.
static void draw_pairs(struct kit *k, struct model *draft, const struct verifier *v, bool tree, const struct sampler_options *so, long *seen) {
    struct err err;
    struct session *s = session_new(k->model, &(struct session_options){.ctx = 8, .all_logits = ROWS, .tree = ROWS}, &err);
    struct session *d = session_new(draft, &(struct session_options){.ctx = 96, .all_logits = ROWS, .tree = ROWS}, &err);
    struct vocab_map map = {.same = true, .draft_n = SMALL, .target_n = SMALL, .shared = SMALL, .share = 1};
    int32_t same[SMALL];
    for (int i = 0; i < SMALL; i++) same[i] = i;
    map.to_target = map.to_draft = same;
    struct drafter *drafter = drafter_model(&(struct draft_model){.session = d, .tokenizer = k->tokenizer, .target_tokenizer = k->tokenizer, .map = &map, .cost = 0.1});
    struct sampler_options mine = *so;
    memset(seen, 0, PAIRS * sizeof *seen);
    for (long i = 0; i < DRAWS; i++) {
        mine.seed = i;
        struct sampler *sampler = sampler_new(&mine, SMALL);
        struct spec_options options = {.session = s, .tokenizer = k->tokenizer, .drafters = {drafter}, .n_drafters = 1, .verifier = v, .rows = ROWS, .most = 2,
                                       .wide = tree ? 3 : 1, .fixed = true, .seed = (uint64_t)i};
        struct spec *spec = spec_new(&options);
        int32_t id[3] = {3, 0, 0};
        session_rewind(s, 0);
        spec_begin(spec, sampler);
        for (int t = 0; t < 2; t++) {
            const float *z = spec_feed(spec, id[t], &err);
            cr_assert(z, "%s", err.text);
            id[t + 1] = spec_pick(spec, z, spec_length(spec), &err);
        }
        seen[id[1] * SMALL + id[2]]++;
        spec_end(spec);
        spec_free(spec);
        sampler_free(sampler);
    }
    drafter->free(drafter);
    session_free(s);
    session_free(d);
}

Test(spec, verifiers_keep_the_distribution_of_a_model) {
    struct kit k = {0};
    struct err err;
    pool_start(1);
    k.backend = backend_cpu(NULL, &err);
    k.tokenizer = tokenizer_byte();
    k.model = random_model(&k, SMALL, 64, 7);
    struct model *draft = random_model(&k, SMALL, 64, 8);
    struct sampler_options so = filters(1);
    so.temp = 1;
    so.top_p = 0.98;
    double p[PAIRS], q[PAIRS], df;
    long seen[PAIRS];
    exact_pairs(k.model, &so, 3, p);
    exact_pairs(draft, &so, 3, q);
    for (int v = 0; v < verifier_count; v++)
        for (int tree = 0; tree < 2; tree++) {
            draw_pairs(&k, draft, &verifiers[v], tree, &so, seen);
            double x = chi_squared(seen, p, DRAWS, &df);
            cr_expect(x < critical(df), "%s, %s: chi2 %g, bound %g", verifiers[v].name, tree ? "trees" : "chains", x, critical(df));
            x = chi_squared(seen, q, DRAWS, &df);
            cr_expect(x > critical(df), "%s: the draft's own distribution passes, so the test has no teeth", verifiers[v].name);
        }
    model_free(draft);
    kit_free(&k);
}
