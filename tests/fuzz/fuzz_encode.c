// Any text through the encoders. The first byte chooses: every pre-tokenizer over a byte-level vocabulary with a few merges,
// the model that ships, the tokenizers of the golden files; the second says which flags. For byte-level vocabularies decode(encode(x))
// is x (in form C where the family normalizes); for all of them ids lie in the vocabulary, and bytes marked as the
// conversation's never end in a control token.
#include "tests/fuzz/files.h"
#include "tokenizer/internal.h"

#include <string.h>

enum { MADE_MAX = 128 };
static struct tokenizer *made[MADE_MAX];
static size_t n_made;

static const char *const merges[] = {"h e", "t he", "\xC4\xA0 the", "\xC4\xA0 a", "i n", "in g", "1 2", "12 3", "\xC4\x8A \xC4\x8A", "\xC4\xA0 \xC4\xA0",
                                     "\xC4\xA0\xC4\xA0 \xC4\xA0\xC4\xA0", "\xC3\xA4 \xC2\xB8", "a a", "aa aa", "' s", "\xC3\x83 \xC2\xA9"};

static struct tokenizer *byte_level(const struct pretokenizer *row) {
    struct text bytes = {0};
    struct span token[256 + COUNT_OF(merges) + 3], rule[COUNT_OF(merges)];
    size_t end[COUNT_OF(token)], n = 0;
    static const char *const more[] = {"<s>", "</s>", "<tool>"};
    for (int i = 0; i < 256; i++, end[n++] = bytes.len) bytes_spell(&(char){(char)i}, 1, &bytes);
    for (size_t i = 0; i < COUNT_OF(merges); i++, end[n++] = bytes.len)
        for (const char *p = merges[i]; *p; p++)
            if (*p != ' ') text_add(&bytes, p, 1);
    for (size_t i = 0; i < COUNT_OF(more); i++, end[n++] = bytes.len) text_str(&bytes, more[i]);
    for (size_t i = 0, from = 0; i < n; from = end[i++]) token[i] = (struct span){bytes.data + from, end[i] - from};
    for (size_t i = 0; i < COUNT_OF(merges); i++) rule[i] = (struct span){merges[i], strlen(merges[i])};
    unsigned char type[COUNT_OF(token)];
    memset(type, TOKEN_NORMAL, n);
    type[n - 3] = type[n - 2] = TOKEN_CONTROL;
    type[n - 1] = TOKEN_USER;
    struct recipe r = {.kind = TOKENIZER_BPE, .tokens = token, .types = type, .n = n, .merges = rule, .n_merges = COUNT_OF(merges),
                       .bos = (int64_t)n - 3, .eos = (int64_t)n - 2, .eot = -1, .eom = -1, .unknown = -1, .stage = row->stage,
                       .pre = {row->names, strcspn(row->names, " ")}, .nfc = row->flags & PRE_NFC,
                       .ignores_merges = row->flags & PRE_WHOLE, .adds_bos = true};
    struct err err = {""};
    struct tokenizer *t = tokenizer_make(&r, &err);
    must(t, err.text);
    text_free(&bytes);
    return t;
}

static void make_all(void) {
    struct err err = {""};
    files_load("stories.gguf", "data/stories-1m.gguf");
    files_load("bpe.json", "tests/golden/pretok_bpe.json");
    files_load("spm.json", "tests/golden/pretok_spm.json");
    made[n_made++] = tokenizer_open("m/stories.gguf", -1, &err);
    made[n_made++] = tokenizer_from_json("m/bpe.json", NULL, &err);
    made[n_made++] = tokenizer_from_json("m/spm.json", NULL, &err);
    for (size_t i = 0; pretokenizer_row(i) && n_made < MADE_MAX; i++) made[n_made++] = byte_level(pretokenizer_row(i));
    for (size_t i = 0; i < n_made; i++) must(made[i], err.text);
    files_drop();
}

static void in_vocabulary(const struct tokenizer *t, const struct ids *ids) {
    for (size_t i = 0; i < ids->count; i++)
        must(ids->id[i] >= 0 && ids->id[i] < tokenizer_vocab(t), "ids are in the vocabulary");
}

static void comes_back(const struct tokenizer *t, const char *p, size_t n) {
    struct ids ids = {0};
    struct text back = {0}, wanted = {0};
    tokenizer_encode(t, p, n, 0, &ids);
    in_vocabulary(t, &ids);
    text_add(&back, "", 0);
    text_add(&wanted, "", 0);
    for (size_t i = 0; i < ids.count; i++) {
        must(tokenizer_type(t, ids.id[i]) != TOKEN_CONTROL, "no text is a control token by itself");
        struct span s = tokenizer_piece_at(t, ids.id[i], i == 0);
        text_add(&back, s.p, s.n);
    }
    if (t->nfc) nfc_add(p, n, &wanted);
    else text_add(&wanted, p, n);
    bool exact = t->kind != TOKENIZER_SPM && t->all_bytes && !t->added;
    must(!exact || (back.len == wanted.len && !memcmp(back.data, wanted.data, back.len)), "a text comes back as it was");
    ids_free(&ids);
    text_free(&back);
    text_free(&wanted);
}

// Bytes above a bound are the conversation's: as many control tokens as without them.
static void control_stays_out(const struct tokenizer *t, const char *p, size_t n, unsigned char bound) {
    struct ids ids = {0}, rest = {0};
    struct text marks = {0}, plain = {0};
    for (size_t i = 0; i < n; i++) {
        char mark = (unsigned char)p[i] > bound;
        text_add(&marks, &mark, 1);
        text_add(&plain, mark ? "\n" : p + i, 1); // no spelling has a newline
    }
    text_add(&plain, "", 0);
    tokenizer_encode_marked(t, p, marks.data, n, 0, &ids);
    tokenizer_encode_marked(t, plain.data, marks.data, n, 0, &rest);
    in_vocabulary(t, &ids);
    size_t with = 0, without = 0;
    for (size_t i = 0; i < ids.count; i++) with += tokenizer_type(t, ids.id[i]) == TOKEN_CONTROL;
    for (size_t i = 0; i < rest.count; i++) without += tokenizer_type(t, rest.id[i]) == TOKEN_CONTROL;
    must(with <= without, "a conversation adds no control token");
    ids_free(&ids);
    ids_free(&rest);
    text_free(&marks);
    text_free(&plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (!n_made) make_all();
    if (n < 2) return 0;
    const struct tokenizer *t = made[bytes[0] % n_made];
    const char *p = (const char *)bytes + 2;
    struct ids ids = {0};
    comes_back(t, p, n - 2);
    tokenizer_encode(t, p, n - 2, bytes[1] & 7, &ids);
    in_vocabulary(t, &ids);
    ids_free(&ids);
    if (n > 2) control_stays_out(t, p, n - 2, bytes[1]);
    return 0;
}
