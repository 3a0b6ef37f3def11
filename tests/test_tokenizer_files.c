// test_tokenizer_files.c: tokenizers out of files and into them, and files that cannot work: each
// is refused with its reason, none can make encoding fail later.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- files

Test(tokenizer_files, what_is_written_reads_back_the_same) {
    struct err err;
    struct tokenizer *all[] = {tokenizer_byte(), tk_trained(30000, 350), tk_random_bpe(1),
                               tk_random_spm(1, true)};
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        struct tokenizer *back = tk_reread(all[i], &err);
        cr_assert(back, "%s", err.text);
        cr_expect_eq(tokenizer_hash(back), tokenizer_hash(all[i]), "tokenizer %zu", i);
        cr_expect_str_eq(tokenizer_kind_name(back), tokenizer_kind_name(all[i]));
        cr_expect(tokenizer_bos(back) == tokenizer_bos(all[i]) &&
                  tokenizer_eos(back) == tokenizer_eos(all[i]));
        cr_expect_eq(tokenizer_adds_bos(back), tokenizer_adds_bos(all[i]));
        cr_expect_eq(tokenizer_vocab(back), tokenizer_vocab(all[i]));
        struct text text = tk_prose(3000, 5);
        struct ids a = tk_encode(all[i], text.data, text.len, TOKENIZE_BOS),
                   b = tk_encode(back, text.data, text.len, TOKENIZE_BOS);
        tk_expect_same(&b, &a, 5, (int)i);
        ids_free(&a);
        ids_free(&b);
        text_free(&text);
        for (size_t k = 0; k < i; k++)
            cr_expect_neq(tokenizer_hash(all[k]), tokenizer_hash(all[i]));
        tokenizer_free(back);
    }
    for (size_t i = 0; i < COUNT_OF(all); i++) tokenizer_free(all[i]);
}

Test(tokenizer_files, the_hash_notices_every_part) {
    uint64_t seen[8];
    for (int change = 0; change < 8; change++) {
        struct tk_made *m = tk_made_bpe();
        tk_made_str(m, "ab", TOKEN_NORMAL, 0);
        tk_made_str(m, "bc", change == 1 ? TOKEN_UNUSED : TOKEN_NORMAL, 0);
        tk_made_str(m, change == 2 ? "<e>" : "<s>", TOKEN_CONTROL, 0);
        m->merge[0] = change == 3 ? "b c" : "a b";
        m->merge[1] = change == 3 ? "a b" : "b c";
        m->n_merges = change == 4 ? 1 : 2;
        m->bos = change == 5 ? -1 : 258;
        m->eos = change == 6 ? -1 : 258;
        if (change == 7) tk_made_str(m, "<x>", TOKEN_CONTROL, 0);
        struct err err;
        struct tokenizer *t = tk_made_open(m, &err);
        cr_assert(t, "%s", err.text);
        seen[change] = tokenizer_hash(t);
        for (int k = 0; k < change; k++)
            cr_expect_neq(seen[k], seen[change], "changes %d and %d", k, change);
        tokenizer_free(t);
        tk_made_free(m);
    }
}

static void expect_refused(struct tk_made *m, const char *word) {
    struct err err = {"nothing said"};
    struct tokenizer *t = tk_made_open(m, &err);
    cr_expect_null(t, "wanted a refusal with \"%s\"", word);
    cr_expect(strstr(err.text, word), "wanted \"%s\" in \"%s\"", word, err.text);
    tokenizer_free(t);
    tk_made_free(m);
}

static struct tk_made *with_merge(const char *line) {
    struct tk_made *m = tk_made_bpe();
    tk_made_str(m, "ab", TOKEN_NORMAL, 0);
    tk_made_str(m, "a<", TOKEN_CONTROL, 0);
    tk_made_str(m,
                "\xC4\xA0"
                "a",
                TOKEN_USER, 0); // stands for itself, not for a space and an a
    m->merge[0] = "a b";
    m->merge[1] = line;
    m->n_merges = 2;
    return m;
}

Test(tokenizer_files, vocabularies_that_cannot_work_are_refused) {
    struct tk_made *m;
    expect_refused(with_merge("q"), "merge 2 of 2");
    expect_refused(with_merge("a"), "space between");
    expect_refused(with_merge(""), "space between");
    expect_refused(with_merge(" "), "space between");
    expect_refused(with_merge("a "), "space between");
    expect_refused(with_merge("a zz"), "right part");
    expect_refused(with_merge("zz a"), "left part");
    expect_refused(with_merge("b a"), "its result is no text token");
    expect_refused(with_merge("a <"),
                   "its result is no text token"); // would make a control token out of text
    expect_refused(with_merge("\xC4\xA0 a"), "other bytes");
    m = tk_made_bpe();
    tk_made_str(m, "a", TOKEN_NORMAL, 0);
    expect_refused(m, "tokens 97 and 256 are spelled alike");
    m = tk_made_bpe();
    tk_made_str(m, "", TOKEN_NORMAL, 0);
    expect_refused(m, "token 256 is empty");
    m = tk_made_bpe();
    m->bos = 256;
    expect_refused(m, "BOS token has id 256");
    m = tk_made_bpe();
    m->eos = -2;
    expect_refused(m, "EOS");
    m = tk_made_bpe();
    m->type[65] = TOKEN_CONTROL;
    expect_refused(m, "byte 0x41");
    m = tk_made_bpe();
    m->type[65] = 77;
    expect_refused(m, "type 77");
    m = tk_made_bpe();
    m->n = 200;
    expect_refused(m, "byte 0xC8");
    m = tk_made_bpe();
    m->n = 0;
    expect_refused(m, "found 0");
    m = tk_made_spm(true);
    tk_made_str(m, "a", TOKEN_NORMAL, NAN);
    expect_refused(m, "token 259 has a score");
    m = tk_made_spm(true);
    m->type[3] = TOKEN_NORMAL;
    m->type[0] = TOKEN_NORMAL;
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_expect_not_null(t, "an unknown token may stand for a byte: %s", err.text);
    tokenizer_free(t);
    tk_made_free(m);

    m = tk_made_bpe(); // fine: empty tokens that are no text, invalid UTF-8, a merge said twice
    tk_made_str(m, "", TOKEN_UNUSED, 0);
    tk_made_str(m, "", TOKEN_CONTROL, 0);
    tk_made_str(m, "\xFF\xFE", TOKEN_NORMAL, 0);
    tk_made_str(m, "ab", TOKEN_NORMAL, 0);
    m->merge[0] = m->merge[1] = "a b";
    m->n_merges = 2;
    t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    cr_expect_eq(t->n_rules, 1);
    tk_expect_ids(t, "abab", 4, TOKENIZE_SPECIAL, "259 259");
    tokenizer_free(t);
    tk_made_free(m);
}

struct file_case { // a GGUF with one thing wrong
    const char *model, *pre, *word;
    int tokens, types, merges, scores; // how many of each
    int64_t bos;
    int type;
};

static void file_write(const struct file_case *c, const char *path) {
    struct err err;
    struct gguf_out *o = gguf_out_open(path, &err);
    cr_assert(o, "%s", err.text);
    struct tk_made *m = tk_made_bpe();
    tk_made_str(m, "ab", TOKEN_NORMAL, 0);
    struct span *tokens = tk_made_tokens(m), merge = {"a b", 3};
    int32_t types[300];
    float scores[300] = {0};
    for (int i = 0; i < 300; i++) types[i] = c->type;
    if (c->model) gguf_out_text(o, "tokenizer.ggml.model", c->model, strlen(c->model));
    if (c->pre) gguf_out_text(o, "tokenizer.ggml.pre", c->pre, strlen(c->pre));
    if (c->tokens >= 0) gguf_out_texts(o, "tokenizer.ggml.tokens", tokens, (size_t)c->tokens);
    if (c->types >= 0) gguf_out_i32s(o, "tokenizer.ggml.token_type", types, (size_t)c->types);
    if (c->merges >= 0) gguf_out_texts(o, "tokenizer.ggml.merges", &merge, (size_t)c->merges);
    if (c->scores >= 0) gguf_out_f32s(o, "tokenizer.ggml.scores", scores, (size_t)c->scores);
    if (c->bos) gguf_out_i32(o, "tokenizer.ggml.bos_token_id", (int32_t)c->bos);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
    free(tokens);
    tk_made_free(m);
}

Test(tokenizer_files, files_are_refused_with_the_reason) {
    static const struct file_case cases[] = {
        {"gpt2", "gpt-2", NULL, 257, 257, 1, -1, 0, 1},
        {"gpt2", NULL, "--tokenizer-pre", 257, -1, 1, -1, 0, 1},
        {"gpt2", "llama-zzz", "\"llama-zzz\"", 257, 257, 1, -1, 0, 1},
        {"bert", NULL, "\"bert\"", 257, 257, 1, -1, 0, 1},
        {NULL, NULL, "tokenizer.ggml.model", 257, 257, 1, -1, 0, 1},
        {"gpt2", "gpt-2", "tokenizer.ggml.tokens", -1, -1, 1, -1, 0, 1},
        {"gpt2", "gpt-2", "empty", 0, -1, 1, -1, 0, 1},
        {"gpt2", "gpt-2", "256 entries for 257", 257, 256, 1, -1, 0, 1},
        {"gpt2", "gpt-2", "tokenizer.ggml.merges", 257, 257, -1, -1, 0, 1},
        {"gpt2", "gpt-2", "merge 1 of 1", 256, 256, 1, -1, 0, 1},
        {"gpt2", "gpt-2", "bos_token_id", 257, 257, 1, -1, 257, 1},
        {"gpt2", "gpt-2", "bos_token_id", 257, 257, 1, -1, -5, 1},
        {"gpt2", "gpt-2", "type 9", 257, 257, 1, -1, 0, 9},
        {"gpt2", "gpt-2", "type -3", 257, 257, 1, -1, 0, -3},
        {"llama", NULL, "tokenizer.ggml.scores", 257, 257, -1, -1, 0, 1},
        {"llama", NULL, "3 entries for 257", 257, 257, -1, 3, 0, 1},
        {"llama", NULL, "byte 0x00", 257, 257, -1, 257, 0, 1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct err err = {""};
        const char *path = tk_temporary("case.gguf");
        file_write(&cases[i], path);
        struct tokenizer *t = tokenizer_open(path, -1, &err);
        if (!cases[i].word)
            cr_expect(t, "case %zu: %s", i, err.text);
        else
            cr_expect(!t && strstr(err.text, cases[i].word), "case %zu: wanted \"%s\" in \"%s\"", i,
                      cases[i].word, err.text);
        tokenizer_free(t);
        unlink(path);
    }
    struct err err;
    cr_expect_null(tokenizer_open("/tmp/lehr-no-such-file", -1, &err));
    cr_expect_null(tokenizer_open("/tmp", -1, &err));
}

// ---- llama2.c

static void bin_add(struct text *t, float score, const char *token) {
    uint32_t n = (uint32_t)strlen(token);
    text_add(t, (const char *)&score, 4);
    text_add(t, (const char *)&n, 4);
    text_add(t, token, n);
}

static struct text bin_make(void) {
    struct text t = {0};
    text_add(&t, "\x07\0\0\0", 4);
    bin_add(&t, 0, "<unk>");
    bin_add(&t, 0, "\n<s>\n");
    bin_add(&t, 0, "\n</s>\n");
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        bin_add(&t, 0, name);
    }
    bin_add(&t, -1, " ");  // 259
    bin_add(&t, -2, "a");  // 260
    bin_add(&t, -3, " a"); // 261
    bin_add(&t, -4, "aa"); // 262
    return t;
}

static struct tokenizer *bin_open(const char *bytes, size_t n, int64_t vocab, struct err *err) {
    const char *path = tk_temporary("tokenizer.bin");
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    struct tokenizer *t = tokenizer_open(path, vocab, err);
    unlink(path);
    return t;
}

Test(tokenizer_files, llama2c_files) {
    struct err err;
    struct text bin = bin_make();
    struct tokenizer *t = bin_open(bin.data, bin.len, 263, &err);
    cr_assert(t, "%s", err.text);
    tk_expect_ids(t, "a aa", 4, TOKENIZE_BOS, "1 261 261 260"); // " a" (-3) before "aa" (-4)
    tk_expect_ids(t, " \n", 2, 0, "259 259 13");
    tk_expect_ids(t, "<s>", 3, TOKENIZE_SPECIAL, "1");
    struct ids ids = tk_encode(t, "a é", 4, 0);
    struct text back = tk_decode(t, &ids);
    cr_expect_str_eq(back.data, "a é");
    struct tokenizer *again = tk_reread(t, &err);
    cr_assert(again, "%s", err.text);
    cr_expect_eq(tokenizer_hash(again), tokenizer_hash(t));
    tokenizer_free(again);
    tokenizer_free(t);
    text_free(&back);
    ids_free(&ids);

    cr_assert(t = bin_open(bin.data, bin.len, -1, &err), "%s", err.text);
    tokenizer_free(t);
    cr_expect(!bin_open(bin.data, bin.len, 262, &err) && strstr(err.text, "left over"), "%s",
              err.text);
    cr_expect(!bin_open(bin.data, bin.len, 264, &err) && strstr(err.text, "found 263"), "%s",
              err.text);
    for (size_t n = 0; n < bin.len; n += n < 100 ? 1 : 13)
        cr_assert_null(bin_open(bin.data, n, 263, &err), "cut to %zu bytes", n);
    bin.data[4 + 4 + 2] = 1; // the first length becomes 65 kB
    cr_expect_null(bin_open(bin.data, bin.len, 263, &err));
    bin.data[4 + 4 + 3] = (char)0xFF; // negative, or 4 GB
    cr_expect_null(bin_open(bin.data, bin.len, -1, &err));
    cr_expect(!bin_open("{\"a\": 1}", 8, -1, &err) && strstr(err.text, "tokenizer.json"), "%s", err.text);
    text_free(&bin);
}

Test(tokenizer_files, every_damaged_byte_is_survived, .timeout = 60) {
    struct tk_made *m = tk_made_spm(true);
    tk_made_str(m, "a", TOKEN_NORMAL, -1);
    tk_made_str(m, WORD_MARK "a", TOKEN_NORMAL, -2);
    struct err err;
    struct tokenizer *all[] = {tk_random_bpe(2), tk_made_open(m, &err)};
    tk_made_free(m);
    for (size_t k = 0; k < COUNT_OF(all); k++) {
        char path[256];
        snprintf(path, sizeof path, "%s", tk_temporary("damaged.gguf"));
        struct gguf_out *o = gguf_out_open(path, &err);
        cr_assert(o, "%s", err.text);
        tokenizer_write(all[k], o);
        cr_assert(gguf_out_commit(o, &err), "%s", err.text);
        struct text file = {0};
        cr_assert(file_read_all(path, 1 << 20, &file, &err), "%s", err.text);
        FILE *f = fopen(path, "r+b");
        cr_assert(f);
        uint64_t counter = 0;
        for (size_t at = 0; at < file.len; at += 1 + tk_below(7 + k, &counter, 5)) {
            char damaged = (char)(file.data[at] ^ (1 << tk_below(7 + k, &counter, 8)));
            cr_assert(!fseek(f, (long)at, SEEK_SET) && fwrite(&damaged, 1, 1, f) == 1 &&
                      !fflush(f));
            struct tokenizer *t = tokenizer_open(path, -1, &err); // refused, or good enough to work
            if (t) {
                struct ids ids =
                    tk_encode(t, "a ab<s>\xFF\xC3\xA9", 10, TOKENIZE_BOS | TOKENIZE_SPECIAL);
                for (size_t i = 0; i < ids.count; i++)
                    cr_assert(ids.id[i] >= 0 && ids.id[i] < tokenizer_vocab(t), "byte %zu", at);
                ids_free(&ids);
            }
            tokenizer_free(t);
            cr_assert(!fseek(f, (long)at, SEEK_SET) && fwrite(&file.data[at], 1, 1, f) == 1);
        }
        fclose(f);
        unlink(path);
        text_free(&file);
        tokenizer_free(all[k]);
    }
}
