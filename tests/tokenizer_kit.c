// tokenizer_kit.c: see tokenizer_kit.h.
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint64_t tk_below(uint64_t seed, uint64_t *counter, uint64_t n) {
    return rng_below(seed, 1, (*counter)++, n);
}

struct span tk_span_of(const char *s) {
    return (struct span){s, strlen(s)};
}

struct ids tk_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags) {
    struct ids ids = {0};
    tokenizer_encode(t, text, n, flags, &ids);
    return ids;
}

struct text tk_decode(const struct tokenizer *t, const struct ids *ids) {
    struct text text = {0};
    text_add(&text, "", 0);
    for (size_t i = 0; i < ids->count; i++) {
        struct span s = tokenizer_piece_at(t, ids->id[i], i == 0);
        text_add(&text, s.p, s.n);
    }
    return text;
}

struct text tk_shown_ids(const struct ids *ids) {
    struct text t = {0};
    text_add(&t, "", 0);
    for (size_t i = 0; i < ids->count; i++) text_fmt(&t, "%s%d", i ? " " : "", ids->id[i]);
    return t;
}

void tk_expect_ids(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                   const char *wanted) {
    struct ids ids = tk_encode(t, text, n, flags);
    struct text got = tk_shown_ids(&ids);
    cr_expect_str_eq(got.data, wanted, "\"%.*s\"", (int)n, text);
    text_free(&got);
    ids_free(&ids);
}

char *tk_temporary(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "/tmp/lehr-test-tokenizer-%ld-%s", (long)getpid(), name);
    return path;
}

struct tokenizer *tk_reread(const struct tokenizer *t, struct err *err) {
    const char *path = tk_temporary("reread.gguf");
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
struct text tk_prose(size_t bytes, uint64_t seed) {
    static const char *const words[] = {
        "the", "glass", "oven", " ", "cools", "slowly",  "and",     "it's", "12",  "warm.", "\n",
        "é",   "we'll", "wait", ",", "until", "nothing", "cracks;", "\t",   "x_y", "玻璃",  "(so)"};
    struct text t = {0};
    uint64_t k = 0;
    while (t.len < bytes) {
        text_str(&t, words[tk_below(seed, &k, COUNT_OF(words))]);
        if (tk_below(seed, &k, 8)) text_str(&t, " ");
    }
    return t;
}

struct tokenizer *tk_trained(size_t bytes, int64_t vocab) {
    struct text text = tk_prose(bytes, 4);
    struct err err;
    struct span document = {text.data, text.len};
    struct tokenizer *t = tokenizer_train(&document, 1, vocab, 0, &err);
    cr_assert(t, "%s", err.text);
    text_free(&text);
    return t;
}

void tk_expect_same(const struct ids *got, const struct ids *wanted, uint64_t seed, int index) {
    bool same = got->count == wanted->count &&
                (!got->count || !memcmp(got->id, wanted->id, got->count * sizeof *got->id));
    struct text a = tk_shown_ids(got), b = tk_shown_ids(wanted);
    cr_assert(same, "seed %llu case %d: %s; wanted %s", (unsigned long long)seed, index, a.data,
              b.data);
    text_free(&a);
    text_free(&b);
}

// ---- a tokenizer put together by hand: what a file would say

void tk_made_add(struct tk_made *m, const char *spelling, size_t n, int type, float score) {
    cr_assert(m->n < COUNT_OF(m->end));
    text_add(&m->spellings, spelling, n);
    m->end[m->n] = m->spellings.len;
    m->type[m->n] = (unsigned char)type;
    m->score[m->n++] = score;
}

void tk_made_str(struct tk_made *m, const char *spelling, int type, float score) {
    tk_made_add(m, spelling, strlen(spelling), type, score);
}

struct tk_made *tk_made_bpe(void) { // ids 0..255: bytes by value
    struct tk_made *m = calloc(1, sizeof *m);
    m->kind = TOKENIZER_BPE;
    m->bos = m->eos = -1;
    for (int i = 0; i < 256; i++) {
        char utf8[4];
        tk_made_add(m, utf8, utf8_encode(byte_spelling((unsigned char)i), utf8), TOKEN_NORMAL, 0);
    }
    return m;
}

struct tk_made *tk_made_spm(bool bytes) { // ids 0..2 special, 3..258 bytes
    struct tk_made *m = calloc(1, sizeof *m);
    m->kind = TOKENIZER_SPM;
    m->bos = 1;
    m->eos = 2;
    tk_made_str(m, "<unk>", TOKEN_UNKNOWN, 0);
    tk_made_str(m, "<s>", TOKEN_CONTROL, 0);
    tk_made_str(m, "</s>", TOKEN_CONTROL, 0);
    for (int i = 0; bytes && i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        tk_made_str(m, name, TOKEN_BYTE, 0);
    }
    return m;
}

struct span *tk_made_tokens(const struct tk_made *m) {
    struct span *s = calloc(m->n, sizeof *s);
    for (size_t i = 0; i < m->n; i++) {
        size_t from = i ? m->end[i - 1] : 0;
        s[i] = (struct span){m->spellings.data + from, m->end[i] - from};
    }
    return s;
}

struct tokenizer *tk_made_open(struct tk_made *m, struct err *err) {
    struct span *tokens = tk_made_tokens(m), merges[64];
    for (size_t i = 0; i < m->n_merges; i++) merges[i] = tk_span_of(m->merge[i]);
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
                       .eom = -1,
                       .unknown = spm ? 0 : -1,
                       .adds_bos = spm,
                       .space_prefix = spm};
    struct tokenizer *t = tokenizer_make(&r, err);
    free(tokens);
    return t;
}

void tk_made_free(struct tk_made *m) {
    text_free(&m->spellings);
    free(m);
}

// ---- random vocabularies

// Random merges of random tokens made so far: also chains whose parts rank after their whole.
struct tokenizer *tk_random_bpe(uint64_t seed) {
    struct tk_made *m = tk_made_bpe();
    char lines[48][300];
    char bytes[300][64] = {"a", "b", "c"};
    size_t known = 3;
    uint64_t k = 0;
    for (int i = 0; i < 48; i++) {
        const char *a = bytes[tk_below(seed, &k, known)], *b = bytes[tk_below(seed, &k, known)];
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
        tk_made_str(m, joined, TOKEN_NORMAL, 0);
    }
    for (size_t i = m->n_merges; i-- > 1;) { // any order of lines is a vocabulary
        size_t j = tk_below(seed, &k, i + 1);
        const char *line = m->merge[i];
        m->merge[i] = m->merge[j];
        m->merge[j] = line;
    }
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_made_free(m);
    return t;
}

struct tokenizer *tk_random_spm(uint64_t seed, bool crossing) {
    static const char *const letters[] = {"a", "b", "é", WORD_MARK, "中"};
    struct tk_made *m = tk_made_spm(true);
    uint64_t k = 0;
    char seen[200][64];
    int n_seen = 0;
    for (int i = 0; i < 60; i++) {
        char token[64] = "";
        int length = 1 + (int)tk_below(seed, &k, 4);
        for (uint64_t n = crossing ? 0 : tk_below(seed, &k, 3); n > 0; n--)
            strcat(token, WORD_MARK);
        for (int j = 0; j < length; j++) {
            size_t letter = tk_below(seed, &k, 5);
            if (!crossing && letter == 3) letter = 0;
            if (length == 1 && letter == 4)
                letter = 0; // 中 is only in longer tokens: merges of what is no token
            strcat(token, letters[letter]);
        }
        bool old = false;
        for (int j = 0; j < n_seen; j++) old |= !strcmp(seen[j], token);
        if (old) continue;
        strcpy(seen[n_seen++], token);
        tk_made_str(m, token, TOKEN_NORMAL, (float)tk_below(seed, &k, 12) - 6); // with equal scores
    }
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_made_free(m);
    return t;
}

// ---- goldens

char *tk_next_line(char **at) {
    char *line = *at, *end = line ? strchr(line, '\n') : NULL;
    if (!end) return NULL;
    *end = '\0';
    *at = end + 1;
    return line;
}

size_t tk_unhex(char *hex) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        hex[i] = (char)strtol(pair, NULL, 16);
    }
    return n;
}

int tk_expect_golden(const struct tokenizer *t, const char *path) {
    struct text file = {0};
    struct err err;
    cr_assert(file_read_all(path, 1 << 20, &file, &err), "%s", err.text);
    char *at = file.data;
    int cases = 0;
    for (char *text; (text = tk_next_line(&at)); cases++) {
        size_t n = tk_unhex(text);
        tk_expect_ids(t, text, n, 0, tk_next_line(&at));
        char *special = tk_next_line(&at);
        // Where the text begins with BOS or ends with EOS itself the reference has two, this has one on purpose.
        bool own = (n >= 3 && !memcmp(text, "<s>", 3)) || (n >= 4 && !memcmp(text + n - 4, "</s>", 4));
        if (!own) tk_expect_ids(t, text, n, TOKENIZE_SPECIAL | TOKENIZE_BOS | TOKENIZE_EOS, special);
    }
    text_free(&file);
    return cases;
}
