// test_tokenizer.c: text to ids and back, held against outside authorities and slow references.
//
//   golden      tests/golden/tokenizer_bpe.txt: trainer and encoder of Hugging Face's tokenizers
//   (make_tokenizer_golden.py) vectors     ids that llama.cpp's test vocabularies carry; needs
//   those files in the folder LEHR_VOCABS (else skipped) references  the lowest-ranked pair first,
//   everything looked at again after every merge promises    exact round trips, no control token
//   from text, linear time, one tokenizer for all threads
//
// Random tests print seed and case when they fail. Files and training have suites of their own.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

// ---- the outside authorities

static size_t unhex(const char *hex, char *out) { // "-" is empty
    size_t n = 0;
    for (; hex[0] && hex[0] != '-' && hex[0] != ' ' && hex[0] != '\n'; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        out[n++] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

Test(tokenizer, trains_and_encodes_as_the_reference_does) {
    struct text file = {0};
    struct err err;
    cr_assert(file_read_all("tests/golden/tokenizer_bpe.txt", 1 << 20, &file, &err), "%s",
              err.text);
    char *buffer = malloc(file.len), *next;
    struct tokenizer *t = NULL;
    struct span train = {0};
    size_t n = 0, merges = 0, texts = 0;
    char *train_bytes = malloc(file.len);
    for (char *line = file.data; *line; line = next) {
        next = strchr(line, '\n');
        *next++ = '\0';
        if (!strncmp(line, "train ", 6))
            train = (struct span){train_bytes, unhex(line + 6, train_bytes)};
        if (!strncmp(line, "vocab ", 6)) t = tokenizer_train(&train, 1, atoi(line + 6), 0, &err);
        cr_assert(t || line == file.data, "%s", err.text);
        if (!strncmp(line, "merge ", 6)) {
            struct merge_rule r = t->rules[merges++];
            cr_assert(merges <= t->n_rules);
            n = unhex(line + 6, buffer);
            cr_expect(t->token[r.left].n == n && !memcmp(t->token[r.left].p, buffer, n),
                      "left of merge %zu", merges);
            n = unhex(strchr(line + 6, ' ') + 1, buffer);
            cr_expect(t->token[r.right].n == n && !memcmp(t->token[r.right].p, buffer, n),
                      "right of merge %zu", merges);
        }
        if (!strncmp(line, "text ", 5)) n = unhex(line + 5, buffer), texts++;
        if (!strncmp(line, "ids", 3)) tk_expect_ids(t, buffer, n, 0, line[3] ? line + 4 : "");
    }
    cr_expect_eq(merges, t->n_rules);
    cr_expect(texts > 300);
    free(buffer);
    free(train_bytes);
    text_free(&file);
    tokenizer_free(t);
}

static void vectors(const char *folder, const char *vocabulary) {
    char path[512];
    struct err err;
    struct text texts = {0}, ids = {0};
    snprintf(path, sizeof path, "%s/%s.gguf", folder, vocabulary);
    struct tokenizer *t = tokenizer_open(path, -1, &err);
    cr_assert(t, "%s", err.text);
    cr_assert(file_read_all("tests/golden/tokenizer_vectors.inp", 1 << 20, &texts, &err), "%s",
              err.text);
    snprintf(path, sizeof path, "tests/golden/tokenizer_%s.out", vocabulary);
    cr_assert(file_read_all(path, 1 << 20, &ids, &err), "%s", err.text);
    text_str(&ids, "\n"); // the last line has none
    const char *const bar = "\n__ggml_vocab_test__\n";
    int n = 0;
    for (char *text = texts.data, *line = ids.data, *end; text;
         text = end ? end + strlen(bar) : NULL, n++) {
        end = strstr(text, bar);
        char *line_end = strchr(line, '\n');
        *line_end = '\0';
        while (*line == ' ') line++;
        for (char *last = line_end; last > line && last[-1] == ' ';) *--last = '\0';
        tk_expect_ids(t, text, end ? (size_t)(end - text) : strlen(text), 0, line);
        line = line_end + 1;
    }
    cr_expect_eq(n, 47);
    struct tokenizer *back = tk_reread(t, &err);
    cr_assert(back, "%s", err.text);
    cr_expect_eq(tokenizer_hash(back), tokenizer_hash(t));
    tokenizer_free(back);
    tokenizer_free(t);
    text_free(&texts);
    text_free(&ids);
}

Test(tokenizer, gives_the_ids_of_published_vocabularies, .timeout = 60) {
    const char *folder = getenv("LEHR_VOCABS");
    if (!folder)
        cr_skip_test(
            "LEHR_VOCABS names no folder with gpt-2.gguf, llama-spm.gguf and deepseek-coder.gguf");
    vectors(folder, "gpt-2");
    vectors(folder, "llama-spm");
    vectors(folder, "deepseek-coder");
}

// ---- characters

Test(tokenizer, utf8_is_strict_and_inverts) {
    for (uint32_t code = 0; code < UTF8_BAD; code++) {
        char bytes[4];
        uint32_t back;
        size_t n = utf8_encode(code, bytes), got = utf8_decode(bytes, n, &back);
        if (code >= 0xD800 && code < 0xE000)
            cr_assert(got == 1 && back == UTF8_BAD, "surrogate %x", code);
        else
            cr_assert(got == n && back == code, "%x", code);
        if (n > 1)
            cr_assert(utf8_decode(bytes, n - 1, &back) == 1 && back == UTF8_BAD, "cut %x", code);
    }
    static const char *const bad[] = {"\x80",
                                      "\xC0\x80",
                                      "\xC1\xBF",
                                      "\xE0\x9F\xBF",
                                      "\xF0\x8F\xBF\xBF",
                                      "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80",
                                      "\xFF",
                                      "\xE2\x28\xA1",
                                      "\xE2\x82(",
                                      "\xED\xA0\x80"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        uint32_t code;
        cr_expect(utf8_decode(bad[i], strlen(bad[i]), &code) == 1 && code == UTF8_BAD, "case %zu",
                  i);
    }
}

Test(tokenizer, classes_of_characters) {
    static const struct {
        uint32_t code;
        enum char_class is;
    } cases[] = {{'a', CHAR_LETTER},     {0xAA, CHAR_LETTER},    {0xD7, CHAR_OTHER},
                 {0xDF, CHAR_LETTER},    {0x300, CHAR_OTHER},    {0x660, CHAR_NUMBER},
                 {0xBD, CHAR_NUMBER},    {0x2167, CHAR_NUMBER},  {0x4E00, CHAR_LETTER},
                 {0x9FFF, CHAR_LETTER},  {0x85, CHAR_SPACE},     {0xA0, CHAR_SPACE},
                 {0x3000, CHAR_SPACE},   {0x200B, CHAR_OTHER},   {0x1C, CHAR_OTHER},
                 {0x1F600, CHAR_OTHER},  {0x10FFFF, CHAR_OTHER}, {0x1C89, CHAR_LETTER},
                 {UTF8_BAD, CHAR_OTHER}, {0xD800, CHAR_OTHER}};
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        cr_expect_eq(char_class(cases[i].code), cases[i].is, "%x", cases[i].code);
}

Test(tokenizer, spelling_of_bytes_inverts) {
    for (int i = 0; i < 256; i++) {
        char byte = (char)i, back[8];
        struct text spelled = {0};
        size_t n;
        bytes_spell(&byte, 1, &spelled);
        cr_assert(bytes_unspell(spelled.data, spelled.len, back, &n) && n == 1 && back[0] == byte,
                  "byte %d", i);
        text_free(&spelled);
    }
    char out[8];
    size_t n;
    cr_expect_not(bytes_unspell(" ", 1, out, &n));
    cr_expect_not(bytes_unspell("\xC5\x84", 2, out, &n)); // U+0144, one past the last
    cr_expect_not(bytes_unspell("\xFF", 1, out, &n));
}

Test(tokenizer, hold_gives_whole_characters_however_the_bytes_come) {
    static const char text[] = "aé€😀\xFFz\xE2\x82!\xF0\x9F\x98\xC3\xA9\x80\xED\xA0\x80\xE2\x82";
    size_t n = sizeof text - 1;
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct utf8_hold h = {0};
        struct text out = {0};
        uint64_t k = 0;
        for (size_t at = 0; at < n;) {
            size_t step = seed == 0 ? 1 : seed == 1 ? n : 1 + tk_below(seed, &k, 5);
            if (step > n - at) step = n - at;
            utf8_hold_feed(&h, text + at, step, &out);
            utf8_hold_feed(&h, "", 0, &out);
            at += step;
            cr_assert(h.n >= 0 && h.n <= 3 && out.len + (size_t)h.n == at, "seed %llu at %zu",
                      (unsigned long long)seed, at);
            cr_assert(!memcmp(out.data ? out.data : "", text, out.len));
            // What is held is the start of a character, so no half one was let out before it could
            // be whole.
            if (h.n) cr_assert((unsigned char)h.held[0] >= 0xC2);
        }
        cr_assert_eq(h.n, 2);
        utf8_hold_flush(&h, &out);
        utf8_hold_flush(&h, &out);
        cr_assert_eq(out.len, n - 2 + 3);
        cr_assert(!memcmp(out.data + n - 2, "\xEF\xBF\xBD", 3));
        text_free(&out);
    }
    struct utf8_hold h = {0};
    struct text out = {0};
    utf8_hold_feed(&h, "\xF0\x9F", 2, &out);
    cr_expect_eq(out.len, 0);
    utf8_hold_feed(&h, "\x98", 1, &out);
    cr_expect_eq(out.len, 0);
    utf8_hold_feed(&h, "\x80", 1, &out);
    cr_expect(out.len == 4 && h.n == 0);
    utf8_hold_feed(&h, "\xE0\x80", 2, &out); // overlong: can never complete
    cr_expect(out.len == 6 && h.n == 0);
    text_free(&out);
}

// ---- the GPT-2 pattern

Test(tokenizer, pieces_of_the_gpt2_pattern) {
    static const char *const cases[] = {"Hello| world",
                                        "it|'s| I|'ll| we|'re| you|'ve| I|'m| he|'d| can|'t",
                                        "IT|'|S",
                                        "a|  | b",
                                        "a| |\n|b",
                                        "a|\n|\n|b",
                                        "   ",
                                        "x|   ",
                                        "a|\t|b",
                                        " |\xC2\xA0|x",
                                        "12|ab|34|!?| !?| 12",
                                        "'| era",
                                        "!'|s",
                                        "''|s",
                                        "a|_|b",
                                        "é|\xCC\x81",
                                        "\xFF\xFE|a",
                                        " \xFF| a",
                                        "½|x",
                                        "'|r|'|v|'|l",
                                        "a|   | '|s"};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char text[128];
        size_t n = 0, at = 0;
        for (const char *c = cases[i]; *c; c++)
            if (*c != '|') text[n++] = *c;
        for (const char *from = cases[i]; from;) {
            const char *bar = strchr(from, '|');
            size_t wanted = bar ? (size_t)(bar - from) : strlen(from);
            size_t got = pretoken_length(text + at, n - at);
            cr_assert_eq(got, wanted, "\"%s\" at %zu: %zu", cases[i], at, got);
            at += got;
            from = bar ? bar + 1 : NULL;
        }
        cr_assert_eq(at, n);
    }
}

// ---- references

// Lowest rank first, leftmost among equals, looking at everything again after every merge.
static void reference_merge(const struct tokenizer *t, const char *piece, struct symbol *s,
                            size_t *n) {
    for (;;) {
        uint32_t rank, best = UINT32_MAX;
        int32_t id, best_id = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < *n; i++) {
            uint32_t size = s[i].size + s[i + 1].size;
            bool merges;
            if (t->kind == TOKENIZER_SPM) {
                merges = spm_merge(t, piece + s[i].start, size, &rank, &id);
            } else {
                merges = false;
                for (size_t k = 0; k < t->n_rules && !merges; k++)
                    if (t->rules[k].left == s[i].id && t->rules[k].right == s[i + 1].id)
                        merges = true, rank = (uint32_t)k, id = t->rules[k].result;
            }
            if (merges && rank < best) best = rank, best_id = id, at = i;
        }
        if (best_id < 0) return;
        s[at].size += s[at + 1].size;
        s[at].id = best_id;
        memmove(&s[at + 1], &s[at + 2], (*n - at - 2) * sizeof *s);
        --*n;
    }
}

static void reference_bpe(const struct tokenizer *t, const char *text, size_t n, struct ids *out) {
    struct symbol *s = calloc(n + 1, sizeof *s);
    while (n) {
        size_t piece = pretoken_length(text, n), count = piece;
        for (size_t i = 0; i < piece; i++)
            s[i] = (struct symbol){
                .start = (uint32_t)i, .size = 1, .id = t->byte_id[(unsigned char)text[i]]};
        reference_merge(t, text, s, &count);
        for (size_t i = 0; i < count; i++) ids_add(out, s[i].id);
        text += piece;
        n -= piece;
    }
    free(s);
}

static void reference_spm(const struct tokenizer *t, const char *text, size_t n, struct ids *out) {
    if (!n) return;
    struct text marked = {0};
    if (t->space_prefix) text_str(&marked, WORD_MARK);
    for (size_t i = 0; i < n; i++)
        text_add(&marked, text[i] == ' ' ? WORD_MARK : &text[i], text[i] == ' ' ? 3 : 1);
    struct symbol *s = calloc(marked.len, sizeof *s);
    size_t count = 0;
    for (size_t at = 0; at < marked.len;) {
        uint32_t code;
        size_t length = utf8_decode(marked.data + at, marked.len - at, &code);
        int32_t id = tokenizer_find(t, marked.data + at, length);
        s[count++] = (struct symbol){.start = (uint32_t)at, .size = (uint32_t)length, .id = id};
        at += length;
    }
    reference_merge(t, marked.data, s, &count);
    for (size_t i = 0; i < count; i++) {
        if (s[i].id >= 0) ids_add(out, s[i].id);
        for (size_t k = 0; s[i].id < 0 && k < s[i].size; k++)
            ids_add(out, 3 + (unsigned char)marked.data[s[i].start + k]);
    }
    free(s);
    text_free(&marked);
}

Test(tokenizer, bpe_merges_as_the_slow_reference, .timeout = 60) {
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct tokenizer *t = tk_random_bpe(seed);
        uint64_t k = 1000;
        for (int i = 0; i < 40; i++) {
            char text[200];
            size_t n = tk_below(
                seed, &k, i % 4 ? 30 : 200); // below and above the length where the heap takes over
            for (size_t j = 0; j < n; j++)
                text[j] = "abcabcaaab "[tk_below(seed, &k, i % 2 ? 10 : 11)];
            struct ids got = tk_encode(t, text, n, 0), wanted = {0};
            reference_bpe(t, text, n, &wanted);
            tk_expect_same(&got, &wanted, seed, i);
            ids_free(&got);
            ids_free(&wanted);
        }
        tokenizer_free(t);
    }
}

Test(tokenizer, spm_merges_as_the_slow_reference, .timeout = 60) {
    static const char *const parts[] = {"a",  "b", "é",       " ",    "中",  "a", "  ",
                                        "\n", "z", WORD_MARK, "\xFF", "<s>", "ab"};
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct tokenizer *t = tk_random_spm(seed, seed % 2);
        if (seed % 2 == 0) cr_assert(t->cuts_at_spaces);
        uint64_t k = 1000;
        for (int i = 0; i < 40; i++) {
            struct text text = {0};
            text_add(&text, "", 0);
            for (size_t n = tk_below(seed, &k, i % 4 ? 20 : 120); n > 0; n--)
                text_str(&text, parts[tk_below(seed, &k, i % 2 ? 7 : COUNT_OF(parts))]);
            struct ids got = tk_encode(t, text.data, text.len, 0), wanted = {0};
            reference_spm(t, text.data, text.len, &wanted);
            tk_expect_same(&got, &wanted, seed, i);
            ids_free(&got);
            ids_free(&wanted);
            text_free(&text);
        }
        tokenizer_free(t);
    }
}

Test(tokenizer, long_texts_have_the_ids_of_their_parts) {
    struct tokenizer *bpe = tk_trained(50000, 400), *spm = tk_random_spm(2, false);
    struct text text = tk_prose(60000, 9);
    for (size_t n = 500; n <= text.len;
         n = n * 3 + 7) { // from below to above the size where pieces are remembered
        struct ids got = tk_encode(bpe, text.data, n, 0), wanted = {0};
        reference_bpe(bpe, text.data, n, &wanted);
        tk_expect_same(&got, &wanted, 9, (int)n);
        ids_free(&got);
        ids_free(&wanted);
    }
    struct ids got = tk_encode(spm, text.data, 6000, 0), wanted = {0};
    reference_spm(spm, text.data, 6000, &wanted);
    tk_expect_same(&got, &wanted, 9, 6000);
    ids_free(&got);
    ids_free(&wanted);
    text_free(&text);
    tokenizer_free(bpe);
    tokenizer_free(spm);
}

// ---- promises

static void expect_round_trip(const struct tokenizer *t, uint64_t seed, int strings, int kind) {
    uint64_t k = 0;
    for (int i = 0; i < strings; i++) {
        char text[256];
        size_t n = tk_below(seed, &k, 1 + i % 200);
        for (size_t j = 0; j < n; j++)
            text[j] = kind == 2 ? "a '\xC3\xA9s \n"[tk_below(seed, &k, 8)]
                                : (char)(tk_below(seed, &k, 256) | (kind ? 0x80 : 0));
        struct ids ids = tk_encode(t, text, n, i % 2 ? 0 : TOKENIZE_SPECIAL);
        struct text back = tk_decode(t, &ids);
        cr_assert(back.len == n && !memcmp(back.data, text, n), "seed %llu kind %d string %d",
                  (unsigned long long)seed, kind, i);
        text_free(&back);
        ids_free(&ids);
    }
}

Test(tokenizer, decoding_inverts_encoding_for_every_byte_string) {
    struct tokenizer *all[] = {tokenizer_byte(), tk_trained(30000, 350), tk_random_bpe(5)};
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        for (int kind = 0; kind < 3; kind++) expect_round_trip(all[i], 100 + i, 4000, kind);
        tokenizer_free(all[i]);
    }
}

Test(tokenizer, byte_ids_are_byte_values) {
    struct tokenizer *t = tokenizer_byte();
    tk_expect_ids(t, "a\0\xFF", 3, TOKENIZE_BOS, "256 97 0 255");
    tk_expect_ids(t, "<|endoftext|>", 13, 0, "60 124 101 110 100 111 102 116 101 120 116 124 62");
    tk_expect_ids(t, "a<|endoftext|>b", 15, TOKENIZE_SPECIAL, "97 256 98");
    tk_expect_ids(t, "", 0, 0, "");
    cr_expect_eq(tokenizer_vocab(t), 257);
    cr_expect(tokenizer_bos(t) == 256 && tokenizer_eos(t) == 256 && tokenizer_adds_bos(t));
    cr_expect(tokenizer_is_end(t, 256) && !tokenizer_is_end(t, 0) && !tokenizer_is_end(t, 257) &&
              !tokenizer_is_end(t, -1));
    cr_expect_eq(tokenizer_type(t, 256), TOKEN_CONTROL);
    cr_expect_eq(tokenizer_piece(t, 256).n, 0);
    cr_expect_eq(tokenizer_token(t, 256).n, 13);
    cr_expect_eq(tokenizer_piece(t, 400).n, 0);
    cr_expect_str_eq(tokenizer_kind_name(t), "byte");
    tokenizer_free(t);
}

Test(tokenizer, control_tokens_come_from_text_only_when_asked) {
    struct tk_made *m = tk_made_bpe();
    tk_made_str(m, "<s>", TOKEN_CONTROL, 0);  // 256
    tk_made_str(m, "<s>x", TOKEN_CONTROL, 0); // 257
    tk_made_str(m, "<", TOKEN_CONTROL, 0);    // replaced below: every byte keeps its own token
    m->n--;
    m->spellings.len = m->end[m->n - 1];
    tk_made_str(m, "<s>xyz", TOKEN_USER, 0);   // 258
    tk_made_str(m, "    ", TOKEN_USER, 0);     // 259
    tk_made_str(m, "<unk>", TOKEN_UNKNOWN, 0); // 260
    m->bos = 256;
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_expect_ids(t, "<s>x<unk>", 9, 0, "60 115 62 120 60 117 110 107 62");
    tk_expect_ids(t, "<s>x<unk>", 9, TOKENIZE_SPECIAL, "257 260");
    tk_expect_ids(t, "<s>y<s>xy<s", 11, TOKENIZE_SPECIAL, "256 121 257 121 60 115");
    tk_expect_ids(t, "<<s><s>xyz", 10, TOKENIZE_SPECIAL, "60 256 258");
    tk_expect_ids(t, "a     <s>xyz", 12, 0, "97 259 32 258"); // user-defined tokens are text
    struct ids ids = tk_encode(t, "a     <s>xyz", 12, 0);
    struct text back = tk_decode(t, &ids);
    cr_expect_str_eq(back.data, "a     <s>xyz");
    text_free(&back);
    ids_free(&ids);
    tokenizer_free(t);
    tk_made_free(m);

    m = tk_made_spm(true);
    tk_made_str(m, "s", TOKEN_NORMAL, -1);
    tk_made_str(m, "<", TOKEN_NORMAL, -1);
    tk_made_str(m, ">", TOKEN_NORMAL, -1);
    tk_made_str(m, "<s", TOKEN_NORMAL, -1);
    tk_made_str(m, WORD_MARK, TOKEN_NORMAL, -1);
    t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_expect_ids(t, "<s>", 3, 0, "263 262 261"); // "<s" + ">" would spell BOS
    tk_expect_ids(t, "<s>s", 4, TOKENIZE_SPECIAL | TOKENIZE_BOS, "1 263 259"); // one BOS
    tk_expect_ids(t, "", 0, TOKENIZE_BOS, "1");
    cr_expect_str_eq(tokenizer_kind_name(t), "spm");
    tokenizer_free(t);
    tk_made_free(m);
}

Test(tokenizer, spm_spaces_bytes_and_strict_byte_spellings) {
    struct tk_made *m = tk_made_spm(true);
    tk_made_str(m, WORD_MARK, TOKEN_NORMAL, -1);     // 259
    tk_made_str(m, "a", TOKEN_NORMAL, -1);           // 260
    tk_made_str(m, WORD_MARK "a", TOKEN_NORMAL, -2); // 261
    tk_made_str(m, "<0x-1>", TOKEN_BYTE, -3);        // 262: no byte
    tk_made_str(m, "<0xZZ>", TOKEN_BYTE, -3);        // 263: no byte
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_expect_ids(t, "a a", 3, TOKENIZE_BOS, "1 261 261");
    tk_expect_ids(t, " a", 2, 0, "259 261");
    tk_expect_ids(t, "é\n", 3, 0, "259 198 172 13");
    cr_expect_eq(tokenizer_type(t, 262), TOKEN_NORMAL);
    cr_expect_eq(tokenizer_piece(t, 262).n, 6);
    cr_expect(tokenizer_piece(t, 13).n == 1 && tokenizer_piece(t, 13).p[0] == '\n');
    cr_expect(tokenizer_piece(t, 261).n == 2 && !memcmp(tokenizer_piece(t, 261).p, " a", 2));
    cr_expect(tokenizer_piece_at(t, 261, true).n == 1 && tokenizer_piece_at(t, 260, true).n == 1);
    cr_expect(tokenizer_piece_at(t, 35, true).n == 1); // the byte 0x20 is a space somebody wrote
    cr_expect_eq(tokenizer_piece(t, 1).n, 0);
    struct ids ids = tk_encode(t, "a é", 4, 0);
    struct text back = tk_decode(t, &ids);
    cr_expect_str_eq(back.data, "a é");
    text_free(&back);
    ids_free(&ids);
    tokenizer_free(t);
    tk_made_free(m);

    m = tk_made_spm(false); // no byte tokens: one unknown token a character
    tk_made_str(m, WORD_MARK, TOKEN_NORMAL, -1);
    t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_expect_ids(t, "é b", 4, 0, "3 0 3 0");
    tokenizer_free(t);
    tk_made_free(m);
}

Test(tokenizer, a_megabyte_of_anything_takes_linear_time, .timeout = 120) {
    static const char *const units[] = {"a", " ",  "\n",   "'",  "\xCC\x81", "0",  "ab",
                                        "é", "中", "\xFF", " a", "<",        "<s", "-"};
    struct tk_made *m = tk_made_bpe();
    tk_made_str(m, "<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<s>",
                TOKEN_CONTROL, 0);
    for (int i = 0; i < 12; i++) { // "aa", "aaaa", ... and the like for other runs
        static char lines[36][9000];
        for (int c = 0; c < 3; c++) {
            const char *unit = c == 0 ? "a" : c == 1 ? "\xC4\xA0" : "<";
            char *line = lines[3 * i + c];
            size_t half = (size_t)1 << i, size = strlen(unit);
            for (size_t j = 0; j < half; j++) memcpy(line + j * size, unit, size);
            memcpy(line + half * size, line, half * size);
            tk_made_add(m, line, 2 * half * size, TOKEN_NORMAL, 0);
            line[half * size] = ' ';
            for (size_t j = 0; j < half; j++) memcpy(line + half * size + 1 + j * size, unit, size);
            line[2 * half * size + 1] = '\0';
            m->merge[m->n_merges++] = line;
        }
    }
    struct err err;
    struct tokenizer *all[] = {tk_made_open(m, &err), tk_trained(20000, 300),
                               tk_random_spm(3, false), tk_random_spm(5, true)};
    cr_assert(all[0], "%s", err.text);
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t u = 0; u < COUNT_OF(units); u++) {
        for (size_t i = 0; i < n; i++) text[i] = units[u][i % strlen(units[u])];
        for (size_t k = 0; k < COUNT_OF(all); k++) {
            double start = time_now();
            struct ids ids = tk_encode(all[k], text, n, TOKENIZE_SPECIAL);
            double seconds = time_now() - start;
            // A quadratic step would take minutes; the bound leaves room for sanitizers and a busy
            // machine.
            cr_expect(seconds < 10, "unit %zu, tokenizer %zu: %.1f s", u, k, seconds);
            cr_expect(ids.count > 0);
            ids_free(&ids);
        }
    }
    free(text);
    tk_made_free(m);
    for (size_t k = 0; k < COUNT_OF(all); k++) tokenizer_free(all[k]);
}

struct sharing {
    const struct tokenizer *t;
    const struct text *text;
    const struct ids *wanted;
    bool same[16];
};

static void encode_shared(void *arg, int64_t low, int64_t high, int thread) {
    struct sharing *s = arg;
    (void)thread;
    for (int64_t i = low; i < high; i++) {
        struct ids ids = tk_encode(s->t, s->text->data, s->text->len, 0);
        s->same[i] = ids.count == s->wanted->count &&
                     !memcmp(ids.id, s->wanted->id, ids.count * sizeof *ids.id);
        ids_free(&ids);
    }
}

Test(tokenizer, threads_share_a_tokenizer) {
    struct tokenizer *t = tk_trained(30000, 350);
    struct text text = tk_prose(20000, 11);
    struct ids wanted = tk_encode(t, text.data, text.len, 0);
    struct sharing s = {t, &text, &wanted, {0}};
    pool_start(4);
    pool_for(16, 1, encode_shared, &s);
    for (int i = 0; i < 16; i++) cr_expect(s.same[i], "call %d", i);
    ids_free(&wanted);
    text_free(&text);
    tokenizer_free(t);
}
