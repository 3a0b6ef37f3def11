// tokenize_texts.c: ids of many texts, for scripts that hold them against another tokenizer's.
//
//     tokenize_texts TOKENIZER [speed|json] < texts      TOKENIZER as tokenizer_open takes it
//
// A text is u32 length, u32 flags (enum tokenize_flags), bytes; each gives one line of ids. With "speed": all texts are encoded
// five times, and the best time in seconds and the ids in all are printed instead. With "json": no texts are read; the tokenizer
// is printed as a tokenizer.json.
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

struct text_in {
    const char *p;
    uint32_t n, flags;
};

static bool next_text(const struct text *in, size_t *at, struct text_in *out) {
    if (in->len - *at < 8) return false;
    memcpy(&out->n, in->data + *at, 4);
    memcpy(&out->flags, in->data + *at + 4, 4);
    if (in->len - *at - 8 < out->n) return false;
    out->p = in->data + *at + 8;
    *at += 8 + (size_t)out->n;
    return true;
}

static int print_json(struct tokenizer *t) {
    struct text json = {0}, notes = {0};
    struct err err;
    bool good = tokenizer_write_json(t, &json, &notes, &err);
    if (good) fwrite(json.data, 1, json.len, stdout);
    fprintf(stderr, "%s", good ? (notes.len ? notes.data : "") : err.text);
    text_free(&json);
    text_free(&notes);
    tokenizer_free(t);
    return !good;
}

int main(int argc, char **argv) {
    struct err err;
    struct text in = {0};
    double start = time_now();
    struct tokenizer *t = argc > 1 ? tokenizer_open(argv[1], -1, &err) : NULL;
    if (!t) {
        fprintf(stderr, "%s\n", argc > 1 ? err.text : "usage: tokenize_texts TOKENIZER [speed|json] < texts");
        return 1;
    }
    if (argc > 2 && !strcmp(argv[2], "json")) return print_json(t);
    if (argc > 2) printf("load %.3f s\n", time_now() - start);
    if (!file_read_all("-", (size_t)1 << 30, &in, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    struct text_in text;
    double best = 1e9;
    size_t n_ids = 0;
    for (int round = 0; round < (argc > 2 ? 5 : 1); round++) {
        double from = time_now();
        n_ids = 0;
        for (size_t at = 0; next_text(&in, &at, &text);) {
            struct ids ids = {0};
            tokenizer_encode(t, text.p, text.n, text.flags, &ids);
            n_ids += ids.count;
            for (size_t i = 0; argc == 2 && i < ids.count; i++) printf("%s%d", i ? " " : "", ids.id[i]);
            if (argc == 2) printf("\n");
            ids_free(&ids);
        }
        if (time_now() - from < best) best = time_now() - from;
    }
    if (argc > 2) printf("encode %.4f s, %zu ids\n", best, n_ids);
    text_free(&in);
    tokenizer_free(t);
    return 0;
}
