// test_tokenizer_json.c: tokenizer.json against the package it comes from (make_pretokenize_golden.py), the way through a
// GGUF file, and refusals that name what is not known.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(const char *name, const char *kind, int cases) {
    char path[128];
    struct err err = {""};
    snprintf(path, sizeof path, "tests/golden/%s.json", name);
    struct tokenizer *t = tokenizer_from_json(path, NULL, &err);
    cr_assert(t, "%s", err.text);
    cr_expect_str_eq(tokenizer_kind_name(t), kind);
    snprintf(path, sizeof path, "tests/golden/%s.ids", name);
    cr_expect_eq(tk_expect_golden(t, path), cases);
    struct tokenizer *back = tk_reread(t, &err);
    cr_assert(back, "%s", err.text);
    cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t));
    tk_expect_golden(back, path);
    tokenizer_free(back);
    tokenizer_free(t);
}

Test(tokenizer_json, byte_level_ids_equal_the_reference) { check("pretok_bpe", "bpe custom", 108); }
Test(tokenizer_json, sentencepiece_ids_equal_the_reference) { check("pretok_spm", "spm", 108); }

// The golden file with one text in it replaced.
static struct tokenizer *edited(const char *name, const char *from, const char *to, struct err *err) {
    char path[128];
    snprintf(path, sizeof path, "tests/golden/%s.json", name);
    struct text file = {0}, out = {0};
    cr_assert(file_read_all(path, 1 << 20, &file, err), "%s", err->text);
    char *found = strstr(file.data, from);
    cr_assert(found, "%s", from);
    text_add(&out, file.data, (size_t)(found - file.data));
    text_str(&out, to);
    text_str(&out, found + strlen(from));
    const char *written = tk_temporary("edited.json");
    struct file_out *f = file_out_open(written, err);
    cr_assert(f, "%s", err->text);
    file_out_write(f, out.data, out.len);
    cr_assert(file_out_commit(f, err), "%s", err->text);
    text_free(&file);
    text_free(&out);
    struct tokenizer *t = tokenizer_from_json(written, NULL, err);
    unlink(written);
    return t;
}

Test(tokenizer_json, what_is_not_known_is_refused_by_its_name) {
    static const struct {
        const char *file, *from, *to, *word;
    } cases[] = {
        {"pretok_bpe", "{\"type\":\"NFC\"}", "{\"type\":\"Lowercase\"}", "Lowercase"},
        {"pretok_bpe", "{\"type\":\"NFC\"}", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", "3 bytes"},
        {"pretok_bpe", "(?i:'s", "(?i:'z", "pattern \"(?i:'z"},
        {"pretok_bpe", "\"Isolated\"", "\"MergedWithNext\"", "MergedWithNext"},
        {"pretok_bpe", "\"add_prefix_space\":false", "\"add_prefix_space\":true", "add_prefix_space"},
        {"pretok_bpe", "{\"type\":\"NFC\"}", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"A-AA\"}", "base64"},
        {"pretok_bpe", "{\"type\":\"NFC\"}", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a+\"},\"content\":\"b\"}", "Replace of \"a+\""},
        {"pretok_bpe", "\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "WordPiece"},
        {"pretok_bpe", "\"dropout\":null", "\"dropout\":0.1", "dropout"},
        {"pretok_bpe", "\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "end_of_word_suffix"},
        {"pretok_bpe", "\"type\":\"TemplateProcessing\"", "\"type\":\"BertProcessing\"", "BertProcessing"},
        {"pretok_bpe", "\"vocab\":{", "\"vocab\":{\"huge\":4000000,", "4000000"},
        {"pretok_bpe", "\"vocab\":{", "\"vocab\":{\"twice\":7,", "both have id 7"},
        {"pretok_bpe", "\"merges\":[", "\"merges\":[[\"a\"],", "no pair"},
        {"pretok_bpe", "\"merges\":[", "\"merges\":[[],", "no pair"},
        {"pretok_bpe", "\"merges\":[", "\"merges\":[[7],", "expected a string"},
        {"pretok_bpe", "\"merges\":[", "\"merges\":[[\"zq\",\"qz\"],", "merge 1 of"},
        {"pretok_bpe", "\"version\"", "\"version\":}", "expected"},
        {"pretok_spm", "\"Replace\"", "\"Lowercase\"", "Lowercase"},
        {"pretok_spm", "\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Whitespace\"}", "Whitespace"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct err err = {""};
        struct tokenizer *t = edited(cases[i].file, cases[i].from, cases[i].to, &err);
        cr_expect(!t && strstr(err.text, cases[i].word), "case %zu: wanted \"%s\" in \"%s\"", i, cases[i].word, err.text);
        tokenizer_free(t);
    }
}

Test(tokenizer_json, cut_files_are_refused) {
    struct text file = {0};
    struct err err;
    cr_assert(file_read_all("tests/golden/pretok_spm.json", 1 << 20, &file, &err), "%s", err.text);
    const char *path = tk_temporary("cut.json");
    for (size_t n = 0; n < file.len; n += 97) {
        struct file_out *f = file_out_open(path, &err);
        file_out_write(f, file.data, n);
        cr_assert(file_out_commit(f, &err));
        cr_assert_null(tokenizer_from_json(path, NULL, &err), "%zu bytes", n);
    }
    unlink(path);
    text_free(&file);
}
