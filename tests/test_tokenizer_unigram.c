// test_tokenizer_unigram.c: Unigram models against the package tokenizers and the library sentencepiece
// (compare_tokenizers.py --golden), against a search that tries everything, and with damaged files; end tokens that a file
// lists; time that grows with the text and no faster.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct tokenizer *golden(const char *name, struct err *err) {
    char path[128];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    struct tokenizer *t = tokenizer_open(path, -1, err);
    cr_assert(t, "%s", err->text);
    return t;
}

static void check(const char *name, const char *kind) {
    char path[128];
    struct err err = {""};
    snprintf(path, sizeof path, "%s.json", name);
    struct tokenizer *t = golden(path, &err);
    cr_expect_str_eq(tokenizer_kind_name(t), kind);
    snprintf(path, sizeof path, "tests/golden/%s.ids", name);
    cr_expect_gt(tk_expect_golden(t, path), 50);
    struct tokenizer *back = tk_reread(t, &err);
    cr_assert(back, "%s", err.text);
    cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t));
    tk_expect_golden(back, path);
    tokenizer_free(back);
    tokenizer_free(t);
}

Test(tokenizer_unigram, ids_as_t5_has_them) { check("unigram_t5", "unigram"); }
Test(tokenizer_unigram, ids_of_words_between_white_space) { check("unigram_words", "unigram"); }
Test(tokenizer_unigram, ids_with_bytes_to_fall_back_on) { check("unigram_bytes", "unigram"); }
Test(tokenizer_json, added_tokens_of_every_kind_and_compatibility_forms) { check("bpe_odd", "bpe custom"); }

static void expect_sentencepiece(const struct tokenizer *t) {
    struct text file = {0};
    struct err err;
    cr_assert(file_read_all("tests/golden/unigram_sp.ids", 1 << 20, &file, &err), "%s", err.text);
    char *at = file.data;
    for (char *text; (text = tk_next_line(&at));) {
        size_t n = tk_unhex(text);
        char *wanted = tk_next_line(&at);
        // The library takes a U+2581 of the text for a space and strips it; llama.cpp, whose files these are, does not.
        text[n] = '\0';
        if (strlen(text) == n && !strstr(text, WORD_MARK)) tk_expect_ids(t, text, n, 0, wanted);
    }
    text_free(&file);
}

Test(tokenizer_unigram, a_gguf_file_reads_as_sentencepiece_does) {
    struct err err;
    struct tokenizer *t = golden("unigram_sp.gguf", &err), *back = tk_reread(t, &err);
    cr_assert(back, "%s", err.text);
    cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t));
    expect_sentencepiece(t);
    expect_sentencepiece(back);
    // A bad byte is U+FFFD, unknown here; neighbours that are unknown are one token.
    struct ids ids = tk_encode(t, "a\xFF\xFE" "a", 4, 0);
    cr_expect_eq(ids.count, 3);
    cr_expect_eq(ids.id[1], 2);
    ids_free(&ids);
    tokenizer_free(back);
    tokenizer_free(t);
}

// ---- a text that goes on from another

static struct text written(const struct tokenizer *t, const char *text, unsigned flags) {
    struct ids ids = tk_encode(t, text, strlen(text), flags);
    struct text out = {0};
    for (size_t i = 0; i < ids.count; i++) text_add(&out, tokenizer_piece(t, ids.id[i]).p, tokenizer_piece(t, ids.id[i]).n);
    ids_free(&ids);
    return out;
}

// Whoever puts the space in front: the vocabulary's kind, a step of the normalizer, Metaspace.
Test(tokenizer, no_space_comes_in_front_of_what_goes_on) {
    static const char *const names[] = {"unigram_sp.gguf", "unigram_t5.json", "unigram_bytes.json", "pretok_spm.json"};
    struct err err;
    struct tk_made *m = tk_made_spm(true);
    tk_made_str(m, WORD_MARK, TOKEN_NORMAL, 0);
    tk_made_str(m, WORD_MARK "a", TOKEN_NORMAL, 0);
    tk_made_str(m, "a", TOKEN_NORMAL, 0);
    for (size_t i = 0; i <= COUNT_OF(names); i++) {
        struct tokenizer *t = i ? golden(names[i - 1], &err) : tk_made_open(m, &err);
        cr_assert(t, "%s", err.text);
        struct text begins = written(t, "a", 0), goes_on = written(t, "a", TOKENIZE_INSIDE), word = written(t, " a", TOKENIZE_INSIDE);
        cr_expect_str_eq(begins.data, " a", "tokenizer %zu", i);
        cr_expect_str_eq(goes_on.data, "a", "tokenizer %zu", i);
        cr_expect_str_eq(word.data, " a", "tokenizer %zu", i);
        text_free(&begins);
        text_free(&goes_on);
        text_free(&word);
        tokenizer_free(t);
    }
    tk_made_free(m);
}

// ---- Viterbi against all segmentations

#define LETTERS "abc"

// The greatest sum over all ways to cut the text, by trying each.
static double best_sum(const struct tokenizer *t, const char *text, size_t n) {
    double best = n ? -1e300 : 0;
    for (size_t k = 1; k <= n; k++) {
        int32_t id = tokenizer_find(t, text, k);
        double one = id >= 3 ? t->unigram.logp[id] : k == 1 ? t->unigram.unknown_logp : -1e300;
        double sum = one + best_sum(t, text + k, n - k);
        if (sum > best) best = sum;
    }
    return best;
}

static struct tokenizer *random_unigram(uint64_t seed) {
    struct tk_made *m = tk_made_spm(false);
    uint64_t k = 0;
    for (int i = 0; i < 14; i++) {
        char token[8] = "";
        size_t n = 1 + tk_below(seed, &k, 4);
        for (size_t j = 0; j < n; j++) token[j] = LETTERS[tk_below(seed, &k, 3)];
        bool old = false;
        for (size_t j = 0; j < m->n; j++) {
            size_t from = j ? m->end[j - 1] : 0;
            old |= m->end[j] - from == n && !memcmp(m->spellings.data + from, token, n);
        }
        if (!old) tk_made_str(m, token, TOKEN_NORMAL, -(float)(1 + tk_below(seed, &k, 40)) / 4);
    }
    struct span *tokens = tk_made_tokens(m);
    struct recipe r = {.kind = TOKENIZER_UNIGRAM, .tokens = tokens, .types = m->type, .scores = m->score, .n = m->n, .bos = -1,
                       .eos = -1, .eot = -1, .eom = -1, .unknown = 0};
    struct err err;
    struct tokenizer *t = tokenizer_make(&r, &err);
    cr_assert(t, "%s", err.text);
    free(tokens);
    tk_made_free(m);
    return t;
}

Test(tokenizer_unigram, the_segmentation_is_the_most_probable) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct tokenizer *t = random_unigram(seed);
        uint64_t k = 1000;
        for (int round = 0; round < 5; round++) {
            char text[13];
            size_t n = 1 + tk_below(seed, &k, sizeof text - 1);
            for (size_t i = 0; i < n; i++) text[i] = LETTERS[tk_below(seed, &k, 3)];
            struct ids ids = tk_encode(t, text, n, 0);
            double sum = 0;
            size_t known = 0;
            for (size_t i = 0; i < ids.count; i++) {
                if (ids.id[i] >= 3) sum += t->unigram.logp[ids.id[i]], known += tokenizer_token(t, ids.id[i]).n;
            }
            sum += (double)(n - known) * t->unigram.unknown_logp; // a run of unknown ones is one token
            cr_expect_float_eq(sum, best_sum(t, text, n), 1e-9, "seed %d text %.*s", (int)seed, (int)n, text);
            ids_free(&ids);
        }
        tokenizer_free(t);
    }
}

// ---- hostile

Test(tokenizer_unigram, a_damaged_map_of_characters_is_refused_or_does_no_harm) {
    struct err err;
    struct tokenizer *t = golden("unigram_t5.json", &err);
    struct span blob = {t->map_blob.data, t->map_blob.len};
    cr_assert_gt(blob.n, 100);
    for (uint64_t seed = 1; seed <= 400; seed++) {
        uint64_t k = 0;
        char *copy = malloc(blob.n);
        memcpy(copy, blob.p, blob.n);
        size_t n = seed % 4 ? blob.n : tk_below(seed, &k, blob.n);
        for (int i = 0; i < 6; i++) copy[tk_below(seed, &k, blob.n)] = (char)tk_below(seed, &k, 256);
        charsmap_free(&t->map);
        if (!charsmap_make(&t->map, (struct span){copy, n}, &err)) {
            charsmap_free(&t->map);
            free(copy);
            continue;
        }
        struct ids ids = tk_encode(t, "A\xEF\xBC\xA1 \xEF\xAC\x81 a\xCC\x88\r\n\xE2\x80\xA6", 17, 0);
        ids_free(&ids);
        free(copy);
    }
    tokenizer_free(t);
}

Test(tokenizer_unigram, texts_cannot_grow_without_bound) {
    char wide[300];
    memset(wide, 'b', sizeof wide);
    struct err err = {""};
    struct charsmap none = {0};
    struct normalize_step steps[3] = {{NORMALIZE_REPLACE, 0, {"a", 1}, {wide, 100}}, {NORMALIZE_REPLACE, 0, {"b", 1}, {wide, 100}}};
    cr_expect(!steps_growth(steps, 2, &none, &err) && strstr(err.text, "times as long"), "%s", err.text);
    steps[1] = (struct normalize_step){NORMALIZE_REPLACE, 0, {"b", 1}, {wide, 300}};
    cr_expect(!steps_growth(steps, 2, &none, &err));
    steps[1] = (struct normalize_step){NORMALIZE_REPLACE, 0, {"", 0}, {wide, 1}};
    cr_expect(!steps_growth(steps, 2, &none, &err));
    cr_expect(steps_growth(steps, 1, &none, &err));
}

// ---- keys and end tokens

Test(tokenizer_json, a_key_may_have_a_nul_in_it) {
    static const char json[] = "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\\u0000b\",-1],[\"\\u0000\",-2]]},"
                               "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"never\",\"split\":false}}";
    static const char keys[] = "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"merges\":[],\"vocab\":{\"<unk>\":0,\"a\":1,\"\\u0000\":2}},"
                               "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}}";
    const char *texts[] = {json, keys}, *wanted[] = {"1 2", "1 2 0 2"};
    for (int i = 0; i < 2; i++) {
        const char *path = tk_temporary("nul.json");
        struct err err;
        struct file_out *f = file_out_open(path, &err);
        file_out_write(f, texts[i], strlen(texts[i]));
        cr_assert(file_out_commit(f, &err));
        struct tokenizer *t = tokenizer_from_json(path, NULL, &err);
        cr_assert(t, "%s", err.text);
        unlink(path);
        tk_expect_ids(t, "a\0b\0", 4, 0, wanted[i]);
        tokenizer_free(t);
    }
}

static struct tokenizer *with_ends(const int32_t *id, size_t n, struct err *err) {
    const char *path = tk_temporary("ends.gguf");
    struct tokenizer *t = tk_trained(2000, 300);
    struct gguf_out *o = gguf_out_open(path, err);
    cr_assert(o, "%s", err->text);
    gguf_out_text(o, "general.architecture", "llama", 5);
    tokenizer_write(t, o);
    gguf_out_i32s(o, "lehr.eos_token_ids", id, n);
    cr_assert(gguf_out_commit(o, err), "%s", err->text);
    tokenizer_free(t);
    t = tokenizer_open(path, -1, err);
    unlink(path);
    return t;
}

Test(tokenizer, every_end_token_that_a_file_lists_ends_a_text) {
    struct err err;
    const int32_t ids[] = {299, 290, 7}, bad[] = {1, 300};
    struct tokenizer *t = with_ends(ids, 3, &err);
    cr_assert(t, "%s", err.text);
    cr_assert_eq(tokenizer_vocab(t), 300);
    for (int32_t id = 0; id < 300; id++) cr_expect_eq(tokenizer_is_end(t, id), id == 7 || id == 290 || id == 299, "%d", id);
    cr_expect_eq(tokenizer_piece(t, 290).n, 0);
    tokenizer_free(t);
    t = with_ends(bad, 2, &err);
    cr_expect(!t && strstr(err.text, "300"), "%s", err.text);
    tokenizer_free(t);
}

// ---- Gemma 4: merges over characters, runs of line ends apart

Test(tokenizer, runs_of_line_ends_are_pieces_of_gemma4) {
    struct tk_made *m = tk_made_spm(true);
    tk_made_str(m, "a", TOKEN_NORMAL, 0);                // 259
    tk_made_str(m, WORD_MARK, TOKEN_NORMAL, 0);          // 260
    tk_made_str(m, WORD_MARK "a", TOKEN_NORMAL, 0);      // 261
    tk_made_str(m, "\n", TOKEN_NORMAL, 0);               // 262
    tk_made_str(m, "\n\n\n", TOKEN_NORMAL, 0);           // 263
    struct span *tokens = tk_made_tokens(m), merge = tk_span_of(WORD_MARK " a");
    struct recipe r = {.kind = TOKENIZER_SPM, .by_rules = true, .splits_lines = true, .tokens = tokens, .types = m->type, .n = m->n,
                       .merges = &merge, .n_merges = 1, .bos = 1, .eos = 2, .eot = -1, .eom = -1, .unknown = 0};
    struct err err;
    struct tokenizer *t = tokenizer_make(&r, &err), *back = t ? tk_reread(t, &err) : NULL;
    cr_assert(back, "%s", err.text);
    tk_expect_ids(t, "a a\n\n\na\n\n", 9, 0, "259 261 263 259 262 262");
    tk_expect_ids(back, "a a\n\n\na\n\n", 9, 0, "259 261 263 259 262 262");
    tokenizer_free(back);
    tokenizer_free(t);
    free(tokens);
    tk_made_free(m);
}

// ---- linear time

static double seconds(const struct tokenizer *t, const char *unit, size_t n) {
    char *text = malloc(n);
    size_t length = strlen(unit);
    double best = 1e9;
    for (size_t i = 0; i < n; i++) text[i] = unit[i % length];
    for (int round = 0; round < 2; round++) {
        clock_t from = clock(); // of this process alone: the machine may be busy
        struct ids ids = tk_encode(t, text, n, 0);
        ids_free(&ids);
        double took = (double)(clock() - from) / CLOCKS_PER_SEC;
        if (took < best) best = took;
    }
    free(text);
    return best;
}

// Ten times the text takes at most about ten times as long; n log n, caches and a busy machine are given a factor of 2.5.
Test(tokenizer, a_megabyte_of_one_thing_takes_time_linear, .timeout = 60) {
    static const char *const names[] = {"unigram_t5.json", "unigram_sp.gguf", "pretok_bpe.json", "pretok_spm.json"};
    static const char *const units[] = {"a", " ", "\xCC\x81"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct err err;
        struct tokenizer *t = golden(names[i], &err);
        for (size_t u = 0; u < COUNT_OF(units); u++) {
            double small = seconds(t, units[u], 80000), large = seconds(t, units[u], 800000);
            cr_expect(large < 25 * small + 0.02, "%s on \"%s\": %.4f s, %.4f s", names[i], units[u], small, large);
        }
        tokenizer_free(t);
    }
}
