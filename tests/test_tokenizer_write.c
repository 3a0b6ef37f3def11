// test_tokenizer_write.c: a tokenizer written as tokenizer.json and read back gives the same ids, whatever it came from.
// (check_written_tokenizers.py holds the same files against the package they are for.)
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#define WORD_MARK "\xE2\x96\x81"

static struct text json_of(const struct tokenizer *t, const char *note) {
    struct text json = {0}, notes = {0};
    struct err err;
    text_str(&notes, "");
    cr_assert(tokenizer_write_json(t, &json, &notes, &err), "%s", err.text);
    cr_assert(note ? strstr(notes.data, note) != NULL : !notes.len, "%s", notes.data);
    text_free(&notes);
    return json;
}

static struct tokenizer *read_back(const struct text *json) {
    const char *path = tk_temporary("written.json");
    struct err err;
    struct file_out *f = file_out_open(path, &err);
    cr_assert(f, "%s", err.text);
    file_out_write(f, json->data, json->len);
    cr_assert(file_out_commit(f, &err), "%s", err.text);
    struct tokenizer *t = tokenizer_from_json(path, NULL, &err);
    unlink(path);
    cr_assert(t, "%s", err.text);
    return t;
}

static struct tokenizer *written(const struct tokenizer *t, const char *note) {
    struct text json = json_of(t, note);
    struct tokenizer *back = read_back(&json);
    text_free(&json);
    return back;
}

// Texts of words, odd characters and spellings of the vocabulary, control ones among them.
static struct text odd_text(const struct tokenizer *t, uint64_t seed) {
    static const char *const parts[] = {" ", "  ", "\n", "\r\n\n", "\t", "it's", "WE'LL", "x_1", "1234567", "½Ⅷ", "éé", "e\u0301", "玻璃",
                                        "かな", "!?…", "$+<=", "Ǆa", "aab", "baé", "ab", WORD_MARK, WORD_MARK WORD_MARK, "😀", "\u0378", "the glass", "#", "¡»"};
    struct text out = {0};
    uint64_t k = 0;
    text_str(&out, "");
    for (uint64_t n = 1 + tk_below(seed, &k, 12); n > 0; n--) {
        struct span s = tk_span_of(parts[tk_below(seed, &k, COUNT_OF(parts))]);
        if (!tk_below(seed, &k, 4)) s = tokenizer_token(t, (int32_t)tk_below(seed, &k, t->n));
        text_add(&out, s.p, s.n);
    }
    return out;
}

static void expect_same(const struct tokenizer *t, const struct tokenizer *back, int texts) {
    static const unsigned flags[] = {0, TOKENIZE_SPECIAL, TOKENIZE_BOS | TOKENIZE_SPECIAL | TOKENIZE_EOS};
    cr_assert_eq(tokenizer_vocab(t), tokenizer_vocab(back));
    for (int i = 0; i < texts; i++) {
        struct text text = odd_text(t, (uint64_t)i);
        for (size_t k = 0; k < COUNT_OF(flags); k++) {
            struct ids a = tk_encode(t, text.data, text.len, flags[k]), b = tk_encode(back, text.data, text.len, flags[k]);
            tk_expect_same(&b, &a, flags[k], i);
            ids_free(&a);
            ids_free(&b);
        }
        text_free(&text);
    }
}

Test(tokenizer_write, every_pre_tokenizer_is_known_again_by_its_patterns) {
    struct tokenizer *trained = tk_trained(20000, 420);
    const char *path = tk_temporary("trained.gguf");
    struct err err;
    struct gguf_out *o = gguf_out_open(path, &err);
    gguf_out_text(o, "general.architecture", "llama", 5);
    tokenizer_write(trained, o);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
    struct model_file *f = model_file_open(path, &err);
    cr_assert(f, "%s", err.text);
    const struct pretokenizer *row;
    for (size_t i = 0; (row = pretokenizer_row(i)) != NULL; i++)
        for (const char *word = row->names; *word; word += word[strcspn(word, " ")] ? strcspn(word, " ") + 1 : strlen(word)) {
            char name[48];
            snprintf(name, sizeof name, "%.*s", (int)strcspn(word, " "), word);
            struct tokenizer *t = tokenizer_from_file_as(f, name, &err);
            cr_assert(t, "%s", err.text);
            struct tokenizer *back = written(t, NULL);
            const struct pretokenizer *found = pretokenizer_find(back->pre, strlen(back->pre));
            cr_assert(found, "%s became %s", name, back->pre);
            cr_expect(!memcmp(found->stage, row->stage, sizeof row->stage), "%s became %s", name, back->pre);
            cr_expect_eq((found->flags ^ row->flags) & (PRE_NFC | PRE_WHOLE), 0, "%s became %s", name, back->pre);
            cr_expect(back->adds_bos == t->adds_bos && back->nfc == t->nfc && back->ignores_merges == t->ignores_merges);
            if (word == row->names) expect_same(t, back, 60);
            tokenizer_free(back);
            tokenizer_free(t);
        }
    model_file_close(f);
    unlink(path);
    tokenizer_free(trained);
}

Test(tokenizer_write, byte_level_bpe_of_any_merges) {
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct tokenizer *t = tk_random_bpe(seed), *back = written(t, NULL);
        expect_same(t, back, 40);
        tokenizer_free(back);
        tokenizer_free(t);
    }
    struct tokenizer *byte = tokenizer_byte(), *back = written(byte, NULL);
    expect_same(byte, back, 40);
    cr_expect(back->adds_bos && back->bos == 256);
    tokenizer_free(back);
    tokenizer_free(byte);
}

// The same split of a token may come about from the left or from the right, and ranks prefer the longer left part where
// scores prefer the place; texts without overlaps of a token with itself have one way only.
Test(tokenizer_write, scores_become_merges) {
    struct tk_made *m = tk_made_spm(true);
    const char *tokens[] = {"l", "o", "w", "e", "r", WORD_MARK, "lo", "low", "er", WORD_MARK "low", "lower", "we", "<tool>"};
    for (size_t i = 0; i < COUNT_OF(tokens); i++) tk_made_str(m, tokens[i], i == 12 ? TOKEN_USER : TOKEN_NORMAL, -(float)i);
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    struct text json = json_of(t, NULL);
    cr_expect(strstr(json.data, "\"merges\":[[\"l\",\"o\"],[\"lo\",\"w\"],[\"e\",\"r\"],[\"" WORD_MARK "\",\"low\"],[\"low\",\"er\"],[\"w\",\"e\"]]"));
    cr_expect(strstr(json.data, "{\"id\":271,\"content\":\"<tool>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                                "\"normalized\":false,\"special\":false}"));
    cr_expect(strstr(json.data, "TemplateProcessing") && strstr(json.data, "\"ids\":[1]") && strstr(json.data, "ByteFallback"));
    struct tokenizer *back = read_back(&json);
    static const char *const texts[] = {"lower", " lower low", "low<tool>lower we", "weer\n  low", "<s>low</s>", "玻璃 lowé"};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (unsigned flags = 0; flags < 4; flags++) {
            struct ids a = tk_encode(t, texts[i], strlen(texts[i]), flags), b = tk_encode(back, texts[i], strlen(texts[i]), flags);
            tk_expect_same(&b, &a, flags, (int)i);
            ids_free(&a), ids_free(&b);
        }
    text_free(&json);
    tokenizer_free(back);
    tokenizer_free(t);
    tk_made_str(m, "中q", TOKEN_NORMAL, -20); // of characters that are no tokens
    t = tk_made_open(m, &err);
    json = json_of(t, "1 tokens are made of characters that are no tokens");
    text_free(&json);
    tokenizer_free(t);
    tk_made_free(m);
}

Test(tokenizer_write, files_of_every_kind_come_back) {
    static const struct {
        const char *path, *note;
    } files[] = {{"pretok_bpe.json", NULL}, {"pretok_spm.json", NULL}, {"bpe_odd.json", NULL},         {"unigram_t5.json", NULL},
                 {"unigram_words.json", NULL}, {"unigram_bytes.json", NULL}, {"unigram_sp.gguf", "map of characters"}};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char path[128];
        struct err err;
        snprintf(path, sizeof path, "tests/golden/%s", files[i].path);
        struct tokenizer *t = tokenizer_open(path, -1, &err);
        cr_assert(t, "%s", err.text);
        struct tokenizer *back = written(t, files[i].note);
        cr_expect_str_eq(tokenizer_kind_name(back), tokenizer_kind_name(t));
        if (!files[i].note) {
            cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t), "%s", path);
            expect_same(t, back, 300);
        }
        snprintf(path, sizeof path, "tests/golden/%.*s.ids", (int)strcspn(files[i].path, "."), files[i].path);
        if (!files[i].note) cr_expect_gt(tk_expect_golden(back, path), 50); // as the package has them
        struct tokenizer *again = tk_reread(t, &err); // the keys of a GGUF in between
        cr_assert(again, "%s", err.text);
        struct text a = json_of(t, files[i].note), b = json_of(again, files[i].note);
        cr_expect_str_eq(a.data, b.data, "%s", path);
        text_free(&a), text_free(&b);
        tokenizer_free(again), tokenizer_free(back), tokenizer_free(t);
    }
}

Test(tokenizer_write, what_has_no_words_is_refused) {
    struct tk_made *m = tk_made_bpe();
    tk_made_add(m, "\xFF\xFE", 2, TOKEN_USER, 0);
    struct err err = {""};
    struct text json = {0};
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    cr_expect(!tokenizer_write_json(t, &json, NULL, &err) && strstr(err.text, "token 256 is no UTF-8") && !json.len, "%s", err.text);
    tokenizer_free(t);
    tk_made_free(m);
    m = tk_made_bpe();
    tk_made_add(m, "a\0b", 3, TOKEN_USER, 0);
    t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    cr_expect(!tokenizer_write_json(t, &json, NULL, &err) && strstr(err.text, "NUL"), "%s", err.text);
    tokenizer_free(t);
    tk_made_free(m);
}
