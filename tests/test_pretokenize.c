// test_pretokenize.c: where the known pre-tokenizers cut, held against Hugging Face's package (make_pretokenize_golden.py),
// and what must hold for all of them: every byte in one piece, linear time, unknown names refused.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *next_line(char **at) { // NULL at the end; the line is cut out
    char *line = *at, *end = line ? strchr(line, '\n') : NULL;
    if (!end) return NULL;
    *end = '\0';
    *at = end + 1;
    return line;
}

static size_t unhex(const char *hex) { // in place
    char *out = (char *)hex;
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

static struct text golden(const char *path) {
    struct text t = {0};
    struct err err;
    cr_assert(file_read_all(path, 1 << 20, &t, &err), "%s", err.text);
    return t;
}

static void expect_pieces(const struct pretokenizer *row, const char *text, size_t n, const char *wanted) {
    struct text normal = {0}, got = {0};
    text_add(&normal, "", 0);
    text_add(&got, "", 0);
    if (row->flags & PRE_NFC)
        nfc_add(text, n, &normal);
    else
        text_add(&normal, text, n);
    struct pieces p = {.stage = row->stage, .text = normal.data, .n = normal.len};
    while (pieces_next(&p)) text_fmt(&got, "%s%zu", got.len ? " " : "", p.at);
    cr_expect_str_eq(got.data, wanted, "%.*s: \"%.*s\"", (int)strcspn(row->names, " "), row->names, (int)n, text);
    text_free(&normal);
    text_free(&got);
}

Test(pretokenize, cuts_where_the_reference_cuts) {
    struct text file = golden("tests/golden/pretok_pieces.txt");
    struct span texts[256];
    size_t n_texts = 0, n_rows = 0, at_text = 0;
    const struct pretokenizer *row = NULL;
    char *at = file.data;
    for (char *line; (line = next_line(&at));) {
        if (!strncmp(line, "text ", 5)) {
            size_t n = unhex(line + 5);
            texts[n_texts++] = (struct span){line + 5, n};
        } else if (!strncmp(line, "pre ", 4)) {
            row = pretokenizer_find(line + 4, strlen(line + 4));
            cr_assert(row, "%s", line);
            n_rows++;
            at_text = 0;
        } else {
            cr_assert(row && at_text < n_texts);
            expect_pieces(row, texts[at_text].p, texts[at_text].n, line);
            at_text++;
        }
    }
    cr_expect_eq(n_rows, 17);
    text_free(&file);
}

Test(pretokenize, every_splitter_has_a_name_and_every_name_one_row) {
    for (size_t i = 0; i < SPLIT_COUNT; i++) cr_expect_eq(splitter_find(splitters[i].name, strlen(splitters[i].name)), &splitters[i]);
    for (size_t i = 0; pretokenizer_row(i); i++)
        for (const char *word = pretokenizer_row(i)->names; *word;) {
            size_t n = strcspn(word, " ");
            cr_expect_eq(pretokenizer_find(word, n), pretokenizer_row(i), "%.*s", (int)n, word);
            word += n + (word[n] == ' ');
        }
    cr_expect_null(pretokenizer_find("gpt", 3));
    cr_expect_null(pretokenizer_find("", 0));
}

// A megabyte of one thing, and mixtures that make a matcher look ahead in vain.
Test(pretokenize, every_pre_tokenizer_is_linear, .timeout = 30) {
    static const char *const units[] = {"a", " ", "\n", "\xCC\x81", "A", "\xCA\xB0" "A", "1", "'", " \n", "\xE3\x80\x80", "!", "/", "\x80", "\xE4\xB8\xAD"};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t u = 0; u < COUNT_OF(units); u++) {
        size_t length = strlen(units[u]);
        for (size_t i = 0; i < n; i++) text[i] = units[u][i % length];
        text[n - 1] = 'x';
        for (size_t i = 0; pretokenizer_row(i); i++) {
            struct pieces p = {.stage = pretokenizer_row(i)->stage, .text = text, .n = n};
            size_t sum = 0;
            double start = time_now();
            for (size_t k; (k = pieces_next(&p)) > 0;) sum += k;
            cr_expect_eq(sum, n);
            cr_expect_lt(time_now() - start, 2.0, "%s on \"%s\"", pretokenizer_row(i)->names, units[u]);
        }
    }
    free(text);
}

Test(pretokenize, random_bytes_fall_into_pieces_that_join) {
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t k = 0;
        char text[64];
        size_t n = 1 + tk_below(seed, &k, sizeof text);
        static const char some[] = " \n\r'sSaA1!/\xC3\xA9\xCC\x81\xE4\xB8\xAD\xFF\xF0\x9F\x98\x80";
        for (size_t i = 0; i < n; i++) text[i] = some[tk_below(seed, &k, sizeof some - 1)];
        for (size_t i = 0; pretokenizer_row(i); i++) {
            struct pieces p = {.stage = pretokenizer_row(i)->stage, .text = text, .n = n};
            size_t sum = 0;
            for (size_t length; (length = pieces_next(&p)) > 0;) sum += length;
            cr_assert_eq(sum, n, "seed %llu, row %zu", (unsigned long long)seed, i);
        }
        struct text normal = {0}, twice = {0};
        nfc_add(text, n, &normal);
        nfc_add(normal.data, normal.len, &twice);
        cr_assert(normal.len == twice.len && !memcmp(normal.data, twice.data, twice.len), "seed %llu", (unsigned long long)seed);
        text_free(&normal);
        text_free(&twice);
    }
}

Test(pretokenize, normal_form_is_linear_too, .timeout = 20) {
    struct text text = {0}, out = {0};
    for (int i = 0; i < 200000; i++) text_str(&text, i % 3 ? "\xCC\x81" : "\xCC\xA3"); // acute above, dot below
    double start = time_now();
    nfc_add(text.data, text.len, &out);
    cr_expect_eq(out.len, text.len);
    cr_expect_lt(time_now() - start, 2.0);
    text_clear(&out);
    nfc_add("A\xCC\x8A\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE2\x84\xAB", 15, &out); // A + ring, Hangul, the angstrom sign
    cr_expect_str_eq(out.data, "\xC3\x85\xEA\xB0\x81\xC3\x85");
    text_free(&text);
    text_free(&out);
}

Test(pretokenize, end_tokens_are_the_union_of_keys_and_spellings) {
    struct tk_made *m = tk_made_bpe();
    struct err err = {""};
    tk_made_str(m, "<|im_end|>", TOKEN_NORMAL, 0);     // 256: a control token whatever the file says
    tk_made_str(m, "</s>", TOKEN_USER, 0);             // 257: markup
    tk_made_str(m, "<|endoftext|>", TOKEN_CONTROL, 0); // 258
    tk_made_str(m, "<stop>", TOKEN_CONTROL, 0);        // 259
    m->eos = 259;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    cr_expect(tokenizer_is_end(t, 256) && tokenizer_is_end(t, 258) && tokenizer_is_end(t, 259));
    cr_expect(!tokenizer_is_end(t, 257) && !tokenizer_is_end(t, 65) && !tokenizer_is_end(t, -1) && !tokenizer_is_end(t, 9999));
    cr_expect_eq(tokenizer_type(t, 256), TOKEN_CONTROL);
    cr_expect_eq(tokenizer_piece(t, 256).n, 0);
    tk_expect_ids(t, "<|im_end|>", 10, TOKENIZE_SPECIAL, "256");
    struct ids ids = tk_encode(t, "<|im_end|>", 10, 0);
    for (size_t i = 0; i < ids.count; i++) cr_expect_lt(ids.id[i], 256);
    ids_free(&ids);
    tokenizer_free(t);
    tk_made_free(m);
}
