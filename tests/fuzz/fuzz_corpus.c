// What ./train reads: texts with and without marker lines, .jsonl, token shards, all in one folder (files.h), and the tokens
// that come of them. Every window of training and of validation is made of ids of the vocabulary.
#include "learn/learn.h"
#include "tests/fuzz/files.h"

#include <string.h>

enum { T = 8 };

static void windows(const struct tokens *t, int64_t vocab) {
    int32_t ids[T], targets[T], start[T];
    int64_t n = t->count > T ? loader_epoch(t, T) : 0;
    if (n > 20) n = 20;
    for (int64_t s = 0; s < 2 * n; s++) {
        loader_sequence(t, T, 1, s, 0, ids, targets, start);
        for (int i = 0; i < T; i++)
            must(ids[i] >= 0 && ids[i] < vocab && targets[i] < vocab && start[i] >= 0 && start[i] <= i, "a sequence is of the vocabulary");
    }
    n = loader_windows(t, T);
    for (int64_t w = 0; w < n && w < 20; w++) {
        loader_window(t, T, w, 0, ids, targets, start);
        for (int i = 0; i < T; i++)
            must(ids[i] >= 0 && ids[i] < vocab && targets[i] < vocab && start[i] >= 0 && start[i] <= i, "a window is of the vocabulary");
    }
}

// Shards are refused unless they name their tokenizer by its hash, which is no part of an input: it is put in.
static void name_tokenizer(struct text *input, uint64_t hash) {
    static const char magic[] = "LEHRTOK1";
    for (size_t at = 0; at + 16 <= input->len; at++)
        if (!memcmp(input->data + at, magic, 8)) memcpy(input->data + at + 8, &hash, sizeof hash);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static struct tokenizer *t;
    if (!t) t = tokenizer_byte();
    struct text input = {0};
    text_add(&input, (const char *)bytes, n);
    name_tokenizer(&input, tokenizer_hash(t));
    struct err err = {""};
    struct corpus c;
    struct tokens train, valid;
    const char *folder = "m";
    files_split((const uint8_t *)input.data, n);
    if (!files_name(0)) files_add("a.txt", input.data, n);
    text_free(&input);
    bool good = corpus_read(&c, &folder, 1, &err);
    must_tell(good, &err);
    must(strncmp(err.text, "expected a text file", 20) != 0, "files of the input are seen");
    if (good) {
        for (size_t i = 0; i < c.n_docs; i++) must(c.doc_end[i] <= c.bytes.len && c.doc_end[i] > (i ? c.doc_end[i - 1] : 0), "documents follow each other");
        err.text[0] = 0;
        bool made = tokens_make(&c, t, n % 2 ? 0.1 : 0, &train, &valid, &err);
        must_tell(made, &err);
        if (made) {
            windows(&train, tokenizer_vocab(t));
            windows(&valid, tokenizer_vocab(t));
            tokens_free(&valid);
            tokens_free(&train);
        }
        corpus_free(&c);
    }
    files_drop();
    return 0;
}
