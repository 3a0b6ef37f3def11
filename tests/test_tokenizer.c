// test_tokenizer.c: text to ids and back, held against outside authorities and slow references.
//
//   golden      tests/golden/tokenizer_bpe.txt: trainer and encoder of Hugging Face's tokenizers
//   (make_tokenizer_golden.py) vectors     ids that llama.cpp's test vocabularies carry; needs
//   those files in the folder LEHR_VOCABS (else skipped) references  the lowest-ranked pair first,
//   from scratch at every step, for encoding BPE and SPM and for training promises    exact round
//   trips, no control token from text, linear time, no dependence on threads, hostile files refused
//
// Random tests print seed and case when they fail.
#include "tokenizer/internal.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORD_MARK "\xE2\x96\x81"

// ---- helpers

static uint64_t below(uint64_t seed, uint64_t *counter, uint64_t n) {
    return rng_below(seed, 1, (*counter)++, n);
}

static struct span span_of(const char *s) { return (struct span){s, strlen(s)}; }

static struct ids encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags) {
    struct ids ids = {0};
    tokenizer_encode(t, text, n, flags, &ids);
    return ids;
}

static struct text decode(const struct tokenizer *t, const struct ids *ids) {
    struct text text = {0};
    text_add(&text, "", 0);
    for (size_t i = 0; i < ids->count; i++) {
        struct span s = tokenizer_piece_at(t, ids->id[i], i == 0);
        text_add(&text, s.p, s.n);
    }
    return text;
}

static struct text shown_ids(const struct ids *ids) {
    struct text t = {0};
    text_add(&t, "", 0);
    for (size_t i = 0; i < ids->count; i++) text_fmt(&t, "%s%d", i ? " " : "", ids->id[i]);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                       const char *wanted) {
    struct ids ids = encode(t, text, n, flags);
    struct text got = shown_ids(&ids);
    cr_expect_str_eq(got.data, wanted, "\"%.*s\"", (int)n, text);
    text_free(&got);
    ids_free(&ids);
}

static char *temporary(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "/tmp/lehr-test-tokenizer-%ld-%s", (long)getpid(), name);
    return path;
}

static struct tokenizer *reread(const struct tokenizer *t, struct err *err) {
    const char *path = temporary("reread.gguf");
    struct gguf_out *o = gguf_out_open(path, err);
    cr_assert(o, "%s", err->text);
    gguf_out_text(o, "general.architecture", "llama", 5);
    tokenizer_write(t, o);
    cr_assert(gguf_out_commit(o, err), "%s", err->text);
    struct tokenizer *back = tokenizer_open(path, -1, err);
    unlink(path);
    return back;
}

// A small prose that repeats itself enough to train on.
static struct text prose(size_t bytes, uint64_t seed) {
    static const char *const words[] = {
        "the", "glass", "oven", " ", "cools", "slowly",  "and",     "it's", "12",  "warm.", "\n",
        "é",   "we'll", "wait", ",", "until", "nothing", "cracks;", "\t",   "x_y", "玻璃",  "(so)"};
    struct text t = {0};
    uint64_t k = 0;
    while (t.len < bytes) {
        text_str(&t, words[below(seed, &k, COUNT_OF(words))]);
        if (below(seed, &k, 8)) text_str(&t, " ");
    }
    return t;
}

static struct tokenizer *trained(size_t bytes, int64_t vocab) {
    struct text text = prose(bytes, 4);
    struct err err;
    struct span document = {text.data, text.len};
    struct tokenizer *t = tokenizer_train(&document, 1, vocab, 0, &err);
    cr_assert(t, "%s", err.text);
    text_free(&text);
    return t;
}

// ---- a tokenizer put together by hand: what a file would say

struct made {
    enum tokenizer_kind kind;
    struct text spellings;
    size_t end[2048];
    unsigned char type[2048];
    float score[2048];
    size_t n, n_merges;
    const char *merge[64];
    int64_t bos, eos;
};

static void made_add(struct made *m, const char *spelling, size_t n, int type, float score) {
    cr_assert(m->n < COUNT_OF(m->end));
    text_add(&m->spellings, spelling, n);
    m->end[m->n] = m->spellings.len;
    m->type[m->n] = (unsigned char)type;
    m->score[m->n++] = score;
}

static void made_str(struct made *m, const char *spelling, int type, float score) {
    made_add(m, spelling, strlen(spelling), type, score);
}

static struct made *made_bpe(void) { // ids 0..255: bytes by value
    struct made *m = calloc(1, sizeof *m);
    m->kind = TOKENIZER_BPE;
    m->bos = m->eos = -1;
    for (int i = 0; i < 256; i++) {
        char utf8[4];
        made_add(m, utf8, utf8_encode(byte_spelling((unsigned char)i), utf8), TOKEN_NORMAL, 0);
    }
    return m;
}

static struct made *made_spm(bool bytes) { // ids 0..2 special, 3..258 bytes
    struct made *m = calloc(1, sizeof *m);
    m->kind = TOKENIZER_SPM;
    m->bos = 1;
    m->eos = 2;
    made_str(m, "<unk>", TOKEN_UNKNOWN, 0);
    made_str(m, "<s>", TOKEN_CONTROL, 0);
    made_str(m, "</s>", TOKEN_CONTROL, 0);
    for (int i = 0; bytes && i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        made_str(m, name, TOKEN_BYTE, 0);
    }
    return m;
}

static struct span *made_tokens(const struct made *m) {
    struct span *s = calloc(m->n, sizeof *s);
    for (size_t i = 0; i < m->n; i++) {
        size_t from = i ? m->end[i - 1] : 0;
        s[i] = (struct span){m->spellings.data + from, m->end[i] - from};
    }
    return s;
}

static struct tokenizer *made_open(struct made *m, struct err *err) {
    struct span *tokens = made_tokens(m), merges[64];
    for (size_t i = 0; i < m->n_merges; i++) merges[i] = span_of(m->merge[i]);
    bool spm = m->kind == TOKENIZER_SPM;
    struct recipe r = {.kind = m->kind,
                       .tokens = tokens,
                       .types = m->type,
                       .scores = spm ? m->score : NULL,
                       .n = m->n,
                       .merges = merges,
                       .n_merges = m->n_merges,
                       .bos = m->bos,
                       .eos = m->eos,
                       .eot = -1,
                       .unknown = spm ? 0 : -1,
                       .adds_bos = spm,
                       .space_prefix = spm};
    struct tokenizer *t = tokenizer_make(&r, err);
    free(tokens);
    return t;
}

static void made_free(struct made *m) {
    text_free(&m->spellings);
    free(m);
}

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
        if (!strncmp(line, "ids", 3)) expect_ids(t, buffer, n, 0, line[3] ? line + 4 : "");
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
    const char *const bar = "\n__ggml_vocab_test__\n";
    int n = 0;
    for (char *text = texts.data, *line = ids.data, *end; text;
         text = end ? end + strlen(bar) : NULL, n++) {
        end = strstr(text, bar);
        char *line_end = strchr(line, '\n');
        *line_end = '\0';
        while (*line == ' ') line++;
        for (char *last = line_end; last > line && last[-1] == ' ';) *--last = '\0';
        expect_ids(t, text, end ? (size_t)(end - text) : strlen(text), 0, line);
        line = line_end + 1;
    }
    cr_expect_eq(n, 47);
    struct tokenizer *back = reread(t, &err);
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
    char path[512];
    struct err err;
    snprintf(path, sizeof path, "%s/deepseek-coder.gguf", folder);
    cr_expect_null(tokenizer_open(path, -1, &err));
    cr_expect(strstr(err.text, "\"deepseek-coder\""), "%s", err.text);
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
            size_t step = seed == 0 ? 1 : seed == 1 ? n : 1 + below(seed, &k, 5);
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

static void expect_same(const struct ids *got, const struct ids *wanted, uint64_t seed, int index) {
    bool same = got->count == wanted->count &&
                (!got->count || !memcmp(got->id, wanted->id, got->count * sizeof *got->id));
    struct text a = shown_ids(got), b = shown_ids(wanted);
    cr_assert(same, "seed %llu case %d: %s; wanted %s", (unsigned long long)seed, index, a.data,
              b.data);
    text_free(&a);
    text_free(&b);
}

// Random merges of random tokens made so far: also chains whose parts rank after their whole.
static struct tokenizer *random_bpe(uint64_t seed) {
    struct made *m = made_bpe();
    char lines[48][300];
    char bytes[300][64] = {"a", "b", "c"};
    size_t known = 3;
    uint64_t k = 0;
    for (int i = 0; i < 48; i++) {
        const char *a = bytes[below(seed, &k, known)], *b = bytes[below(seed, &k, known)];
        if (strlen(a) + strlen(b) > 20) continue;
        char joined[64];
        snprintf(joined, sizeof joined, "%.20s%.20s", a, b);
        bool old = false;
        for (size_t j = 0; j < known; j++) old |= !strcmp(bytes[j], joined);
        snprintf(lines[m->n_merges], sizeof lines[0], "%s %s", a, b);
        m->merge[m->n_merges] = lines[m->n_merges];
        m->n_merges++;
        if (old) continue;
        strcpy(bytes[known++], joined);
        made_str(m, joined, TOKEN_NORMAL, 0);
    }
    for (size_t i = m->n_merges; i-- > 1;) { // any order of lines is a vocabulary
        size_t j = below(seed, &k, i + 1);
        const char *line = m->merge[i];
        m->merge[i] = m->merge[j];
        m->merge[j] = line;
    }
    struct err err;
    struct tokenizer *t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    made_free(m);
    return t;
}

Test(tokenizer, bpe_merges_as_the_slow_reference, .timeout = 60) {
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct tokenizer *t = random_bpe(seed);
        uint64_t k = 1000;
        for (int i = 0; i < 40; i++) {
            char text[200];
            size_t n = below(
                seed, &k, i % 4 ? 30 : 200); // below and above the length where the heap takes over
            for (size_t j = 0; j < n; j++)
                text[j] = "abcabcaaab "[below(seed, &k, i % 2 ? 10 : 11)];
            struct ids got = encode(t, text, n, 0), wanted = {0};
            reference_bpe(t, text, n, &wanted);
            expect_same(&got, &wanted, seed, i);
            ids_free(&got);
            ids_free(&wanted);
        }
        tokenizer_free(t);
    }
}

static struct tokenizer *random_spm(uint64_t seed, bool crossing) {
    static const char *const letters[] = {"a", "b", "é", WORD_MARK, "中"};
    struct made *m = made_spm(true);
    uint64_t k = 0;
    char seen[200][64];
    int n_seen = 0;
    for (int i = 0; i < 60; i++) {
        char token[64] = "";
        int length = 1 + (int)below(seed, &k, 4);
        if (!crossing && below(seed, &k, 3) == 0) strcat(token, WORD_MARK);
        for (int j = 0; j < length; j++) {
            size_t letter = below(seed, &k, 5);
            if (!crossing && letter == 3) letter = 0;
            if (length == 1 && letter == 4)
                letter = 0; // 中 is only in longer tokens: merges of what is no token
            strcat(token, letters[letter]);
        }
        bool old = false;
        for (int j = 0; j < n_seen; j++) old |= !strcmp(seen[j], token);
        if (old) continue;
        strcpy(seen[n_seen++], token);
        made_str(m, token, TOKEN_NORMAL, (float)below(seed, &k, 12) - 6); // with equal scores
    }
    struct err err;
    struct tokenizer *t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    made_free(m);
    return t;
}

Test(tokenizer, spm_merges_as_the_slow_reference, .timeout = 60) {
    static const char *const parts[] = {"a",  "b", "é",       " ",    "中",  "a", "  ",
                                        "\n", "z", WORD_MARK, "\xFF", "<s>", "ab"};
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct tokenizer *t = random_spm(seed, seed % 2);
        if (seed % 2 == 0) cr_assert(t->cuts_at_spaces);
        uint64_t k = 1000;
        for (int i = 0; i < 40; i++) {
            struct text text = {0};
            text_add(&text, "", 0);
            for (size_t n = below(seed, &k, i % 4 ? 20 : 120); n > 0; n--)
                text_str(&text, parts[below(seed, &k, i % 2 ? 7 : COUNT_OF(parts))]);
            struct ids got = encode(t, text.data, text.len, 0), wanted = {0};
            reference_spm(t, text.data, text.len, &wanted);
            expect_same(&got, &wanted, seed, i);
            ids_free(&got);
            ids_free(&wanted);
            text_free(&text);
        }
        tokenizer_free(t);
    }
}

Test(tokenizer, long_texts_have_the_ids_of_their_parts) {
    struct tokenizer *bpe = trained(50000, 400), *spm = random_spm(2, false);
    struct text text = prose(60000, 9);
    for (size_t n = 500; n <= text.len;
         n = n * 3 + 7) { // from below to above the size where pieces are remembered
        struct ids got = encode(bpe, text.data, n, 0), wanted = {0};
        reference_bpe(bpe, text.data, n, &wanted);
        expect_same(&got, &wanted, 9, (int)n);
        ids_free(&got);
        ids_free(&wanted);
    }
    struct ids got = encode(spm, text.data, 6000, 0), wanted = {0};
    reference_spm(spm, text.data, 6000, &wanted);
    expect_same(&got, &wanted, 9, 6000);
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
        size_t n = below(seed, &k, 1 + i % 200);
        for (size_t j = 0; j < n; j++)
            text[j] = kind == 2 ? "a '\xC3\xA9s \n"[below(seed, &k, 8)]
                                : (char)(below(seed, &k, 256) | (kind ? 0x80 : 0));
        struct ids ids = encode(t, text, n, i % 2 ? 0 : TOKENIZE_SPECIAL);
        struct text back = decode(t, &ids);
        cr_assert(back.len == n && !memcmp(back.data, text, n), "seed %llu kind %d string %d",
                  (unsigned long long)seed, kind, i);
        text_free(&back);
        ids_free(&ids);
    }
}

Test(tokenizer, decoding_inverts_encoding_for_every_byte_string) {
    struct tokenizer *all[] = {tokenizer_byte(), trained(30000, 350), random_bpe(5)};
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        for (int kind = 0; kind < 3; kind++) expect_round_trip(all[i], 100 + i, 4000, kind);
        tokenizer_free(all[i]);
    }
}

Test(tokenizer, byte_ids_are_byte_values) {
    struct tokenizer *t = tokenizer_byte();
    expect_ids(t, "a\0\xFF", 3, TOKENIZE_BOS, "256 97 0 255");
    expect_ids(t, "<|endoftext|>", 13, 0, "60 124 101 110 100 111 102 116 101 120 116 124 62");
    expect_ids(t, "a<|endoftext|>b", 15, TOKENIZE_SPECIAL, "97 256 98");
    expect_ids(t, "", 0, 0, "");
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
    struct made *m = made_bpe();
    made_str(m, "<s>", TOKEN_CONTROL, 0);  // 256
    made_str(m, "<s>x", TOKEN_CONTROL, 0); // 257
    made_str(m, "<", TOKEN_CONTROL, 0);    // replaced below: every byte keeps its own token
    m->n--;
    m->spellings.len = m->end[m->n - 1];
    made_str(m, "<s>xyz", TOKEN_USER, 0);   // 258
    made_str(m, "    ", TOKEN_USER, 0);     // 259
    made_str(m, "<unk>", TOKEN_UNKNOWN, 0); // 260
    m->bos = 256;
    struct err err;
    struct tokenizer *t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    expect_ids(t, "<s>x<unk>", 9, 0, "60 115 62 120 60 117 110 107 62");
    expect_ids(t, "<s>x<unk>", 9, TOKENIZE_SPECIAL, "257 260");
    expect_ids(t, "<s>y<s>xy<s", 11, TOKENIZE_SPECIAL, "256 121 257 121 60 115");
    expect_ids(t, "<<s><s>xyz", 10, TOKENIZE_SPECIAL, "60 256 258");
    expect_ids(t, "a     <s>xyz", 12, 0, "97 259 32 258"); // user-defined tokens are text
    struct ids ids = encode(t, "a     <s>xyz", 12, 0);
    struct text back = decode(t, &ids);
    cr_expect_str_eq(back.data, "a     <s>xyz");
    text_free(&back);
    ids_free(&ids);
    tokenizer_free(t);
    made_free(m);

    m = made_spm(true);
    made_str(m, "s", TOKEN_NORMAL, -1);
    made_str(m, "<", TOKEN_NORMAL, -1);
    made_str(m, ">", TOKEN_NORMAL, -1);
    made_str(m, "<s", TOKEN_NORMAL, -1);
    made_str(m, WORD_MARK, TOKEN_NORMAL, -1);
    t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    expect_ids(t, "<s>", 3, 0, "263 262 261"); // "<s" + ">" would spell BOS
    expect_ids(t, "<s>s", 4, TOKENIZE_SPECIAL | TOKENIZE_BOS, "1 1 263 259");
    expect_ids(t, "", 0, TOKENIZE_BOS, "1");
    cr_expect_str_eq(tokenizer_kind_name(t), "spm");
    tokenizer_free(t);
    made_free(m);
}

Test(tokenizer, spm_spaces_bytes_and_strict_byte_spellings) {
    struct made *m = made_spm(true);
    made_str(m, WORD_MARK, TOKEN_NORMAL, -1);     // 259
    made_str(m, "a", TOKEN_NORMAL, -1);           // 260
    made_str(m, WORD_MARK "a", TOKEN_NORMAL, -2); // 261
    made_str(m, "<0x-1>", TOKEN_BYTE, -3);        // 262: no byte
    made_str(m, "<0xZZ>", TOKEN_BYTE, -3);        // 263: no byte
    struct err err;
    struct tokenizer *t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    expect_ids(t, "a a", 3, TOKENIZE_BOS, "1 261 261");
    expect_ids(t, " a", 2, 0, "259 261");
    expect_ids(t, "é\n", 3, 0, "259 198 172 13");
    cr_expect_eq(tokenizer_type(t, 262), TOKEN_NORMAL);
    cr_expect_eq(tokenizer_piece(t, 262).n, 6);
    cr_expect(tokenizer_piece(t, 13).n == 1 && tokenizer_piece(t, 13).p[0] == '\n');
    cr_expect(tokenizer_piece(t, 261).n == 2 && !memcmp(tokenizer_piece(t, 261).p, " a", 2));
    cr_expect(tokenizer_piece_at(t, 261, true).n == 1 && tokenizer_piece_at(t, 260, true).n == 1);
    cr_expect(tokenizer_piece_at(t, 35, true).n == 1); // the byte 0x20 is a space somebody wrote
    cr_expect_eq(tokenizer_piece(t, 1).n, 0);
    struct ids ids = encode(t, "a é", 4, 0);
    struct text back = decode(t, &ids);
    cr_expect_str_eq(back.data, "a é");
    text_free(&back);
    ids_free(&ids);
    tokenizer_free(t);
    made_free(m);

    m = made_spm(false); // no byte tokens: one unknown token a character
    made_str(m, WORD_MARK, TOKEN_NORMAL, -1);
    t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    expect_ids(t, "é b", 4, 0, "3 0 3 0");
    tokenizer_free(t);
    made_free(m);
}

Test(tokenizer, a_megabyte_of_anything_takes_linear_time, .timeout = 120) {
    static const char *const units[] = {"a", " ",  "\n",   "'",  "\xCC\x81", "0",  "ab",
                                        "é", "中", "\xFF", " a", "<",        "<s", "-"};
    struct made *m = made_bpe();
    made_str(m, "<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<s>",
             TOKEN_CONTROL, 0);
    for (int i = 0; i < 12; i++) { // "aa", "aaaa", ... and the like for other runs
        static char lines[36][9000];
        for (int c = 0; c < 3; c++) {
            const char *unit = c == 0 ? "a" : c == 1 ? "\xC4\xA0" : "<";
            char *line = lines[3 * i + c];
            size_t half = (size_t)1 << i, size = strlen(unit);
            for (size_t j = 0; j < half; j++) memcpy(line + j * size, unit, size);
            memcpy(line + half * size, line, half * size);
            made_add(m, line, 2 * half * size, TOKEN_NORMAL, 0);
            line[half * size] = ' ';
            for (size_t j = 0; j < half; j++) memcpy(line + half * size + 1 + j * size, unit, size);
            line[2 * half * size + 1] = '\0';
            m->merge[m->n_merges++] = line;
        }
    }
    struct err err;
    struct tokenizer *all[] = {made_open(m, &err), trained(20000, 300), random_spm(3, false),
                               random_spm(5, true)};
    cr_assert(all[0], "%s", err.text);
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t u = 0; u < COUNT_OF(units); u++) {
        for (size_t i = 0; i < n; i++) text[i] = units[u][i % strlen(units[u])];
        for (size_t k = 0; k < COUNT_OF(all); k++) {
            double start = time_now();
            struct ids ids = encode(all[k], text, n, TOKENIZE_SPECIAL);
            double seconds = time_now() - start;
            // A quadratic step would take minutes; the bound leaves room for sanitizers and a busy
            // machine.
            cr_expect(seconds < 10, "unit %zu, tokenizer %zu: %.1f s", u, k, seconds);
            cr_expect(ids.count > 0);
            ids_free(&ids);
        }
    }
    free(text);
    made_free(m);
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
        struct ids ids = encode(s->t, s->text->data, s->text->len, 0);
        s->same[i] = ids.count == s->wanted->count &&
                     !memcmp(ids.id, s->wanted->id, ids.count * sizeof *ids.id);
        ids_free(&ids);
    }
}

Test(tokenizer, threads_share_a_tokenizer) {
    struct tokenizer *t = trained(30000, 350);
    struct text text = prose(20000, 11);
    struct ids wanted = encode(t, text.data, text.len, 0);
    struct sharing s = {t, &text, &wanted, {0}};
    pool_start(4);
    pool_for(16, 1, encode_shared, &s);
    for (int i = 0; i < 16; i++) cr_expect(s.same[i], "call %d", i);
    ids_free(&wanted);
    text_free(&text);
    tokenizer_free(t);
}

// ---- files

Test(tokenizer, what_is_written_reads_back_the_same) {
    struct err err;
    struct tokenizer *all[] = {tokenizer_byte(), trained(30000, 350), random_bpe(1),
                               random_spm(1, true)};
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        struct tokenizer *back = reread(all[i], &err);
        cr_assert(back, "%s", err.text);
        cr_expect_eq(tokenizer_hash(back), tokenizer_hash(all[i]), "tokenizer %zu", i);
        cr_expect_str_eq(tokenizer_kind_name(back), tokenizer_kind_name(all[i]));
        cr_expect(tokenizer_bos(back) == tokenizer_bos(all[i]) &&
                  tokenizer_eos(back) == tokenizer_eos(all[i]));
        cr_expect_eq(tokenizer_adds_bos(back), tokenizer_adds_bos(all[i]));
        cr_expect_eq(tokenizer_vocab(back), tokenizer_vocab(all[i]));
        struct text text = prose(3000, 5);
        struct ids a = encode(all[i], text.data, text.len, TOKENIZE_BOS),
                   b = encode(back, text.data, text.len, TOKENIZE_BOS);
        expect_same(&b, &a, 5, (int)i);
        ids_free(&a);
        ids_free(&b);
        text_free(&text);
        for (size_t k = 0; k < i; k++)
            cr_expect_neq(tokenizer_hash(all[k]), tokenizer_hash(all[i]));
        tokenizer_free(back);
    }
    for (size_t i = 0; i < COUNT_OF(all); i++) tokenizer_free(all[i]);
}

Test(tokenizer, the_hash_notices_every_part) {
    uint64_t seen[8];
    for (int change = 0; change < 8; change++) {
        struct made *m = made_bpe();
        made_str(m, "ab", TOKEN_NORMAL, 0);
        made_str(m, "bc", change == 1 ? TOKEN_UNUSED : TOKEN_NORMAL, 0);
        made_str(m, change == 2 ? "<e>" : "<s>", TOKEN_CONTROL, 0);
        m->merge[0] = change == 3 ? "b c" : "a b";
        m->merge[1] = change == 3 ? "a b" : "b c";
        m->n_merges = change == 4 ? 1 : 2;
        m->bos = change == 5 ? -1 : 258;
        m->eos = change == 6 ? -1 : 258;
        if (change == 7) made_str(m, "<x>", TOKEN_CONTROL, 0);
        struct err err;
        struct tokenizer *t = made_open(m, &err);
        cr_assert(t, "%s", err.text);
        seen[change] = tokenizer_hash(t);
        for (int k = 0; k < change; k++)
            cr_expect_neq(seen[k], seen[change], "changes %d and %d", k, change);
        tokenizer_free(t);
        made_free(m);
    }
}

static void expect_refused(struct made *m, const char *word) {
    struct err err = {"nothing said"};
    struct tokenizer *t = made_open(m, &err);
    cr_expect_null(t, "wanted a refusal with \"%s\"", word);
    cr_expect(strstr(err.text, word), "wanted \"%s\" in \"%s\"", word, err.text);
    tokenizer_free(t);
    made_free(m);
}

static struct made *with_merge(const char *line) {
    struct made *m = made_bpe();
    made_str(m, "ab", TOKEN_NORMAL, 0);
    made_str(m, "a<", TOKEN_CONTROL, 0);
    made_str(m,
             "\xC4\xA0"
             "a",
             TOKEN_USER, 0); // stands for itself, not for a space and an a
    m->merge[0] = "a b";
    m->merge[1] = line;
    m->n_merges = 2;
    return m;
}

Test(tokenizer, vocabularies_that_cannot_work_are_refused) {
    struct made *m;
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
    m = made_bpe();
    made_str(m, "a", TOKEN_NORMAL, 0);
    expect_refused(m, "tokens 97 and 256 are spelled alike");
    m = made_bpe();
    made_str(m, "", TOKEN_NORMAL, 0);
    expect_refused(m, "token 256 is empty");
    m = made_bpe();
    m->bos = 256;
    expect_refused(m, "BOS token has id 256");
    m = made_bpe();
    m->eos = -2;
    expect_refused(m, "EOS");
    m = made_bpe();
    m->type[65] = TOKEN_CONTROL;
    expect_refused(m, "byte 0x41");
    m = made_bpe();
    m->type[65] = 77;
    expect_refused(m, "type 77");
    m = made_bpe();
    m->n = 255;
    expect_refused(m, "byte 0xFF");
    m = made_bpe();
    m->n = 0;
    expect_refused(m, "found 0");
    m = made_spm(true);
    made_str(m, "a", TOKEN_NORMAL, NAN);
    expect_refused(m, "token 259 has a score");
    m = made_spm(true);
    m->type[3] = TOKEN_NORMAL;
    m->type[0] = TOKEN_NORMAL;
    struct err err;
    struct tokenizer *t = made_open(m, &err);
    cr_expect_not_null(t, "an unknown token may stand for a byte: %s", err.text);
    tokenizer_free(t);
    made_free(m);

    m = made_bpe(); // fine: empty tokens that are no text, invalid UTF-8, a merge said twice
    made_str(m, "", TOKEN_UNUSED, 0);
    made_str(m, "", TOKEN_CONTROL, 0);
    made_str(m, "\xFF\xFE", TOKEN_NORMAL, 0);
    made_str(m, "ab", TOKEN_NORMAL, 0);
    m->merge[0] = m->merge[1] = "a b";
    m->n_merges = 2;
    t = made_open(m, &err);
    cr_assert(t, "%s", err.text);
    cr_expect_eq(t->n_rules, 1);
    expect_ids(t, "abab", 4, TOKENIZE_SPECIAL, "259 259");
    tokenizer_free(t);
    made_free(m);
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
    struct made *m = made_bpe();
    made_str(m, "ab", TOKEN_NORMAL, 0);
    struct span *tokens = made_tokens(m), merge = {"a b", 3};
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
    made_free(m);
}

Test(tokenizer, files_are_refused_with_the_reason) {
    static const struct file_case cases[] = {
        {"gpt2", "gpt-2", NULL, 257, 257, 1, -1, 0, 1},
        {"gpt2", NULL, NULL, 257, -1, 1, -1, 0, 1},
        {"gpt2", "llama-bpe", "\"llama-bpe\"", 257, 257, 1, -1, 0, 1},
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
        const char *path = temporary("case.gguf");
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
    const char *path = temporary("tokenizer.bin");
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    struct tokenizer *t = tokenizer_open(path, vocab, err);
    unlink(path);
    return t;
}

Test(tokenizer, llama2c_files) {
    struct err err;
    struct text bin = bin_make();
    struct tokenizer *t = bin_open(bin.data, bin.len, 263, &err);
    cr_assert(t, "%s", err.text);
    expect_ids(t, "a aa", 4, TOKENIZE_BOS, "1 261 261 260"); // " a" (-3) before "aa" (-4)
    expect_ids(t, " \n", 2, 0, "259 259 13");
    expect_ids(t, "<s>", 3, TOKENIZE_SPECIAL, "1");
    struct ids ids = encode(t, "a é", 4, 0);
    struct text back = decode(t, &ids);
    cr_expect_str_eq(back.data, "a é");
    struct tokenizer *again = reread(t, &err);
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
    cr_expect(!bin_open("{\"a\": 1}", 8, -1, &err) && strstr(err.text, "JSON"), "%s", err.text);
    text_free(&bin);
}

// ---- training

Test(tokenizer, training_does_not_depend_on_threads_or_cuts, .timeout = 60) {
    struct text text = prose(1500000, 6);
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
        if (same == tokens) tokens++;
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

Test(tokenizer, training_merges_as_the_slow_reference, .timeout = 60) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct text text = {0};
        uint64_t k = 0;
        size_t letters = 1 + seed % 4;
        for (int i = 0; i < 1500; i++)
            text_add(
                &text,
                &"abcd  \n"[below(seed, &k, 8) ? below(seed, &k, letters) : 4 + below(seed, &k, 3)],
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

Test(tokenizer, trained_vocabularies_are_laid_out_as_promised) {
    struct tokenizer *t = trained(50000, 300);
    cr_assert_eq(tokenizer_vocab(t), 300);
    cr_expect(tokenizer_bos(t) == 299 && tokenizer_eos(t) == 299 && tokenizer_adds_bos(t) &&
              tokenizer_is_end(t, 299));
    cr_expect_eq(tokenizer_type(t, 299), TOKEN_CONTROL);
    cr_expect(tokenizer_piece(t, 0).p[0] == '!' && tokenizer_piece(t, 187).p[0] == '\xFF');
    cr_expect(tokenizer_piece(t, 188).p[0] == '\0' && tokenizer_piece(t, 255).p[0] == '\xAD');
    expect_ids(t, "!", 1, TOKENIZE_BOS, "299 0");
    tokenizer_free(t);
    struct err err;
    cr_expect(!tokenizer_train(NULL, 0, 256, 0, &err) && strstr(err.text, "257"), "%s", err.text);
    t = tokenizer_train(NULL, 0, 5000, 0, &err); // no text: bytes only
    cr_assert(t, "%s", err.text);
    cr_expect_eq(tokenizer_vocab(t), 257);
    struct tokenizer *back = reread(t, &err);
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

Test(tokenizer, training_on_a_part_takes_documents_from_everywhere) {
    enum { N = 200 };
    static char text[N][200];
    struct span documents[N];
    for (int i = 0; i < N; i++) { // a word of its own in each document, often
        char word[16];
        snprintf(word, sizeof word, " %c%c%c", 'a' + i % 26, 'a' + i / 26, 'A' + i % 26);
        for (int k = 0; k < 40; k++) strcat(text[i], word);
        documents[i] = span_of(text[i]);
    }
    struct err err;
    struct tokenizer *t = tokenizer_train(documents, N, 4096, 160 * 50, &err);
    cr_assert(t, "%s", err.text);
    int known[4] = {0};
    for (int i = 0; i < N; i++) {
        struct ids ids = encode(t, text[i], 4, 0);
        known[i / 50] += ids.count == 1;
        ids_free(&ids);
    }
    for (int q = 0; q < 4; q++)
        cr_expect(known[q] >= 10 && known[q] <= 15, "quarter %d: %d of 50 documents", q, known[q]);
    tokenizer_free(t);
}

Test(tokenizer, training_takes_linear_time_on_any_text, .timeout = 120) {
    static const char *const units[] = {"a", " ", "ab", "\xCC\x81", "'", NULL};
    size_t n = 1 << 20;
    char *text = malloc(n);
    for (size_t u = 0; u < COUNT_OF(units); u++) {
        uint64_t k = 0;
        for (size_t i = 0; i < n; i++)
            text[i] = units[u] ? units[u][i % strlen(units[u])] : (char)('a' + below(3, &k, 26));
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
