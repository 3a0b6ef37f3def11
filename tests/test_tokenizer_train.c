// test_tokenizer_train.c: training a BPE gives the merges of the slow reference, whatever the
// threads and the cuts between documents, in linear time. (That it gives those of another program
// is in test_tokenizer.c, golden.)
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(tokenizer_train, training_does_not_depend_on_threads_or_cuts, .timeout = 60) {
    struct text text = tk_prose(1500000, 6);
    struct span documents[40];
    size_t n = 0;
    // The same text as one document, and cut where a word ends anyway.
    for (size_t from = 0, at = 40000; n < 40; at += 40000) {
        while (at < text.len &&
               !(text.data[at] == ' ' && text.data[at - 1] >= 'a' && text.data[at - 1] <= 'z'))
            at++;
        if (at > text.len || n == 39) at = text.len;
        documents[n++] = (struct span){text.data + from, at - from};
        from = at;
        if (at == text.len) break;
    }
    struct span whole = {text.data, text.len};
    uint64_t first = 0;
    for (int threads = 1; threads <= 4; threads++) {
        pool_start(threads);
        struct err err;
        struct tokenizer *a = tokenizer_train(&whole, 1, 320, 0, &err),
                         *b = tokenizer_train(documents, n, 320, 0, &err);
        cr_assert(a && b, "%s", err.text);
        if (threads == 1) first = tokenizer_hash(a);
        cr_expect_eq(tokenizer_hash(a), first, "%d threads", threads);
        cr_expect_eq(tokenizer_hash(b), first, "%d threads, %zu documents", threads, n);
        tokenizer_free(a);
        tokenizer_free(b);
    }
    text_free(&text);
}

// Chunks may end before a space only where a word ends, else a run of spaces would count as two.
Test(tokenizer_train, training_cuts_no_run_of_spaces) {
    static const char *const runs[] = {"   q", "\u3000  q", "\u00a0  q"};
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        size_t n = (size_t)600 << 10, chunk = (size_t)256 << 10,
               first = strcspn(runs[i] + 1, " ") + 1;
        char *text = malloc(n);
        for (size_t k = 0; k < n; k++) text[k] = "xy "[k % 3];
        // In both documents the first place to cut lies inside the run: behind its first character.
        memcpy(text + chunk - first, runs[i], strlen(runs[i]));
        text[chunk - first - 1] = 'x';
        text[chunk - first + strlen(runs[i])] = 'x';
        struct span documents[] = {{text, n}, {text, n}};
        struct err err;
        struct tokenizer *t = tokenizer_train(documents, 2, 300, 0, &err);
        cr_assert(t, "%s", err.text);
        struct ids ids = tk_encode(t, runs[i], strlen(runs[i]) - 2, 0);
        cr_expect_eq(ids.count, 1, "the run without its last space has %zu tokens, case %zu",
                     ids.count, i);
        ids_free(&ids);
        tokenizer_free(t);
        free(text);
    }
}

// Counts all pairs of all words again before every merge.
static size_t reference_training(const char *text, size_t n, int32_t (*merges)[2], size_t most) {
    static char bytes[512][64];
    static size_t size[512];
    size_t tokens = 0, made = 0;
    int32_t *id = calloc(n, sizeof *id), *word = calloc(n, sizeof *word), byte_id[256];
    for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < 256; b++)
            if ((byte_spelling((unsigned char)b) == (uint32_t)b) == (pass == 0)) {
                bytes[tokens][0] = (char)b;
                size[tokens] = 1;
                byte_id[b] = (int32_t)tokens++;
            }
    int32_t words = 0;
    for (size_t at = 0; at < n; words++)
        for (size_t k = pretoken_length(text + at, n - at); k > 0; k--, at++) {
            id[at] = byte_id[(unsigned char)text[at]];
            word[at] = words;
        }
    long(*count)[512] = calloc(512, sizeof *count);
    while (made < most) {
        memset(count, 0, 512 * sizeof *count);
        int32_t a = 0, b = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (word[i] == word[i + 1]) count[id[i]][id[i + 1]]++;
        for (int32_t i = 0; i < (int32_t)tokens; i++)
            for (int32_t j = 0; j < (int32_t)tokens; j++)
                if (count[i][j] > count[a][b]) a = i, b = j;
        if (count[a][b] < 2) break;
        memcpy(bytes[tokens], bytes[a], size[a]);
        memcpy(bytes[tokens] + size[a], bytes[b], size[b]);
        size[tokens] = size[a] + size[b];
        size_t same = 0;
        while (size[same] != size[tokens] || memcmp(bytes[same], bytes[tokens], size[tokens]) != 0)
            same++;
        cr_assert_eq(same, tokens, "two merges make the same bytes");
        tokens++;
        merges[made][0] = a;
        merges[made++][1] = b;
        size_t to = 0;
        for (size_t i = 0; i < n; to++) {
            bool joins = i + 1 < n && word[i] == word[i + 1] && id[i] == a && id[i + 1] == b;
            word[to] = word[i];
            id[to] = joins ? (int32_t)same : id[i];
            i += joins ? 2 : 1;
        }
        n = to;
    }
    free(id);
    free(word);
    free(count);
    return made;
}

Test(tokenizer_train, training_merges_as_the_slow_reference, .timeout = 60) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct text text = {0};
        uint64_t k = 0;
        size_t letters = 1 + seed % 4;
        for (int i = 0; i < 1500; i++)
            text_add(&text,
                     &"abcd  \n"[tk_below(seed, &k, 8) ? tk_below(seed, &k, letters)
                                                       : 4 + tk_below(seed, &k, 3)],
                     1);
        int32_t merges[100][2];
        struct span document = {text.data, text.len};
        struct err err;
        struct tokenizer *t = tokenizer_train(&document, 1, 320, 0, &err);
        cr_assert(t, "%s", err.text);
        size_t n = reference_training(text.data, text.len, merges,
                                      t->n_rules < 100 ? t->n_rules + 1 : 100);
        cr_assert(n == t->n_rules || t->n == 320, "seed %llu: %zu merges, wanted %zu",
                  (unsigned long long)seed, t->n_rules, n);
        for (size_t i = 0; i < t->n_rules; i++)
            cr_assert(t->rules[i].left == merges[i][0] && t->rules[i].right == merges[i][1],
                      "seed %llu merge %zu: %d %d, wanted %d %d", (unsigned long long)seed, i,
                      t->rules[i].left, t->rules[i].right, merges[i][0], merges[i][1]);
        tokenizer_free(t);
        text_free(&text);
    }
}

Test(tokenizer_train, trained_vocabularies_are_laid_out_as_promised) {
    struct tokenizer *t = tk_trained(50000, 300);
    cr_assert_eq(tokenizer_vocab(t), 300);
    cr_expect(tokenizer_bos(t) == 299 && tokenizer_eos(t) == 299 && tokenizer_adds_bos(t) &&
              tokenizer_is_end(t, 299));
    cr_expect_eq(tokenizer_type(t, 299), TOKEN_CONTROL);
    cr_expect(tokenizer_piece(t, 0).p[0] == '!' && tokenizer_piece(t, 187).p[0] == '\xFF');
    cr_expect(tokenizer_piece(t, 188).p[0] == '\0' && tokenizer_piece(t, 255).p[0] == '\xAD');
    tk_expect_ids(t, "!", 1, TOKENIZE_BOS, "299 0");
    tokenizer_free(t);
    struct err err;
    cr_expect(!tokenizer_train(NULL, 0, 256, 0, &err) && strstr(err.text, "257"), "%s", err.text);
    t = tokenizer_train(NULL, 0, 5000, 0, &err); // no text: bytes only
    cr_assert(t, "%s", err.text);
    cr_expect_eq(tokenizer_vocab(t), 257);
    struct tokenizer *back = tk_reread(t, &err);
    cr_assert(back, "%s", err.text);
    cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t));
    tokenizer_free(back);
    tokenizer_free(t);
    struct span twice = {"ab ab", 5};
    t = tokenizer_train(&twice, 1, 5000, 0, &err); // "ab" stands twice, " ab" once
    cr_assert(t, "%s", err.text);
    cr_expect_eq(tokenizer_vocab(t), 258);
    tokenizer_free(t);
}

Test(tokenizer_train, training_on_a_part_takes_documents_from_everywhere) {
    enum { N = 200 };
    static char text[N][200];
    struct span documents[N];
    for (int i = 0; i < N; i++) { // a word of its own in each document, often
        char word[16];
        snprintf(word, sizeof word, " %c%c%c", 'a' + i % 26, 'a' + i / 26, 'A' + i % 26);
        for (int k = 0; k < 40; k++) strcat(text[i], word);
        documents[i] = tk_span_of(text[i]);
    }
    struct err err;
    struct tokenizer *t = tokenizer_train(documents, N, 4096, 160 * 50, &err);
    cr_assert(t, "%s", err.text);
    int known[4] = {0};
    for (int i = 0; i < N; i++) {
        struct ids ids = tk_encode(t, text[i], 4, 0);
        known[i / 50] += ids.count == 1;
        ids_free(&ids);
    }
    for (int q = 0; q < 4; q++)
        cr_expect(known[q] >= 10 && known[q] <= 15, "quarter %d: %d of 50 documents", q, known[q]);
    tokenizer_free(t);
}

Test(tokenizer_train, training_takes_linear_time_on_any_text, .timeout = 120) {
    static const char *const units[] = {"a", " ", "ab", "\xCC\x81", "'", NULL};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t u = 0; u < COUNT_OF(units); u++) {
        uint64_t k = 0;
        for (size_t i = 0; i < n; i++)
            text[i] = units[u] ? units[u][i % strlen(units[u])] : (char)('a' + tk_below(3, &k, 26));
        struct span document = {text, n};
        struct err err;
        double start = time_now();
        struct tokenizer *t = tokenizer_train(&document, 1, 1000, 0, &err);
        cr_assert(t, "%s", err.text);
        double seconds = time_now() - start;
        cr_expect(seconds < 15, "unit %zu: %.1f s", u, seconds);
        tokenizer_free(t);
    }
    free(text);
}
