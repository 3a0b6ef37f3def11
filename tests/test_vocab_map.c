// test_vocab_map.c: two vocabularies token by token: by bytes, by role, never by number; what a draft reads for a target's text
// is that text. Vocabularies by hand, by training and, where LEHR_VOCABS and LEHR_MODELS name folders, published ones.
#include "gen/spec.h"
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define GPT_SPACE "\xC4\xA0" // how GPT-2 spells a space

static struct tokenizer *made(struct tk_made *m) {
    struct err err;
    struct tokenizer *t = tk_made_open(m, &err);
    cr_assert(t, "%s", err.text);
    tk_made_free(m);
    return t;
}

static struct vocab_map *mapped(const struct tokenizer *draft, const struct tokenizer *target) {
    struct err err;
    struct vocab_map *m = vocab_map_new(draft, target, 0, &err);
    cr_assert(m, "%s", err.text);
    return m;
}

static int32_t id_of(const struct tokenizer *t, const char *spelling) {
    int32_t id = tokenizer_find(t, spelling, strlen(spelling));
    cr_assert_geq(id, 0, "no token %s", spelling);
    return id;
}

// The token of the draft that is read for one of the target, and whether it is guessed as that one.
static void expect_pair(const struct vocab_map *m, int32_t draft, int32_t target, bool guessed) {
    cr_expect_eq(m->to_draft[target], draft, "target %d is read as %d, not %d", target, m->to_draft[target], draft);
    if (draft >= 0) cr_expect((m->to_target[draft] == target) == guessed, "draft %d guesses %d", draft, m->to_target[draft]);
}

// Each id of the target is guessed by one of the draft at most, and read as that one; the counts are those of the lists.
static void expect_sound(const struct vocab_map *m, const struct tokenizer *draft, const struct tokenizer *target) {
    int64_t shared = 0, count = 0, shared_texts = 0;
    for (int64_t t = 0; t < m->target_n; t++) {
        struct span spelled = tokenizer_token(target, (int32_t)t);
        bool padding = tokenizer_type(target, (int32_t)t) == TOKEN_UNUSED || (spelled.n > 5 && !memcmp(spelled.p, "[PAD", 4));
        bool text = tokenizer_piece(target, (int32_t)t).n && !padding;
        int32_t d = m->to_draft[t];
        cr_assert(d >= -1 && d < m->draft_n);
        bool guessed = d >= 0 && m->to_target[d] == t;
        shared += guessed;
        count += text;
        shared_texts += text && guessed;
        if (d < 0 || !text) continue;
        struct span a = tokenizer_piece(draft, d), b = tokenizer_piece(target, (int32_t)t);
        bool control = tokenizer_type(draft, d) == TOKEN_CONTROL || tokenizer_type(target, (int32_t)t) == TOKEN_CONTROL;
        cr_assert(control || (a.n == b.n && !memcmp(a.p, b.p, a.n)), "ids %lld and %d", (long long)t, d);
    }
    for (int64_t d = 0; d < m->draft_n; d++)
        cr_assert(m->to_target[d] < 0 || (m->to_target[d] < m->target_n && m->to_draft[m->to_target[d]] == d));
    cr_expect_eq(m->shared, shared);
    cr_expect_float_eq(m->share, count ? (double)shared_texts / (double)count : 0, 1e-12);
}

// ---- by hand

Test(vocab_map, text_is_the_same_by_its_bytes) {
    struct tk_made *a = tk_made_bpe(), *b = tk_made_spm(true);
    tk_made_str(a, GPT_SPACE "the", TOKEN_NORMAL, 0);
    tk_made_str(a, "the", TOKEN_NORMAL, 0);
    tk_made_str(a, GPT_SPACE "kiln", TOKEN_NORMAL, 0);
    tk_made_str(b, "the", TOKEN_NORMAL, 0);
    tk_made_str(b, WORD_MARK "the", TOKEN_NORMAL, 0);
    tk_made_str(b, "A", TOKEN_NORMAL, 0);
    struct tokenizer *bpe = made(a), *spm = made(b);
    struct vocab_map *m = mapped(spm, bpe);
    expect_sound(m, spm, bpe);
    expect_pair(m, id_of(spm, WORD_MARK "the"), id_of(bpe, GPT_SPACE "the"), true);
    expect_pair(m, id_of(spm, "the"), id_of(bpe, "the"), true);
    expect_pair(m, -1, id_of(bpe, GPT_SPACE "kiln"), false);
    expect_pair(m, id_of(spm, "A"), 'A', true);       // a text token before the byte
    expect_pair(m, id_of(spm, "<0x42>"), 'B', true);  // a byte where there is no other
    expect_pair(m, id_of(spm, "<0x0A>"), '\n', true);
    expect_pair(m, id_of(spm, "<0xE4>"), 0xE4, true);
    cr_expect_eq(m->to_target[id_of(spm, "<0x41>")], -1);
    cr_expect_not(m->same);
    vocab_map_free(m);
    m = mapped(bpe, spm); // the other way round: both are read as "A", one of them is guessed
    expect_sound(m, bpe, spm);
    expect_pair(m, 'A', id_of(spm, "A"), true);
    expect_pair(m, 'A', id_of(spm, "<0x41>"), false);
    expect_pair(m, 'B', id_of(spm, "<0x42>"), true);
    vocab_map_free(m);
    tokenizer_free(bpe);
    tokenizer_free(spm);
}

Test(vocab_map, the_lowest_of_several_ids_wins_and_a_vocabulary_maps_onto_itself) {
    struct tk_made *a = tk_made_spm(true), *b = tk_made_spm(true), *c = tk_made_bpe();
    for (int i = 0; i < 2; i++) { // spelled apart, the same bytes
        struct tk_made *m = i ? b : a;
        if (i) tk_made_str(m, "unlike", TOKEN_NORMAL, 0);
        tk_made_str(m, "x", TOKEN_NORMAL, 0);
        tk_made_str(m, "  ", TOKEN_USER, 0);
        tk_made_str(m, WORD_MARK WORD_MARK, TOKEN_NORMAL, 0);
    }
    tk_made_str(c, GPT_SPACE GPT_SPACE, TOKEN_NORMAL, 0);
    struct tokenizer *one = made(a), *other = made(b), *bpe = made(c);
    struct vocab_map *m = mapped(one, one);
    expect_sound(m, one, one);
    cr_expect(m->same && m->share == 1 && m->shared == m->target_n);
    vocab_map_free(m);
    m = mapped(one, other);
    expect_pair(m, id_of(one, "  "), id_of(other, "  "), true);
    expect_pair(m, id_of(one, WORD_MARK WORD_MARK), id_of(other, WORD_MARK WORD_MARK), true);
    vocab_map_free(m);
    m = mapped(one, bpe);
    expect_sound(m, one, bpe);
    expect_pair(m, id_of(one, "  "), id_of(bpe, GPT_SPACE GPT_SPACE), true);
    cr_expect_eq(m->to_target[id_of(one, WORD_MARK WORD_MARK)], -1);
    vocab_map_free(m);
    tokenizer_free(one);
    tokenizer_free(other);
    tokenizer_free(bpe);
}

Test(vocab_map, control_tokens_are_the_same_by_spelling_and_by_role) {
    struct tk_made *a = tk_made_bpe(), *b = tk_made_spm(true);
    static const char *const ours[] = {"<|begin|>", "<|finish|>", "<|im_end|>", "<|tool|>", "<|user|>", "<|mine|>"};
    for (size_t i = 0; i < COUNT_OF(ours); i++) tk_made_str(a, ours[i], TOKEN_CONTROL, 0);
    a->bos = 256;
    a->eos = 257;
    tk_made_str(b, "<end_of_turn>", TOKEN_CONTROL, 0);
    tk_made_str(b, "<|tool|>", TOKEN_CONTROL, 0);
    tk_made_str(b, "<|user|>", TOKEN_USER, 0);
    tk_made_str(b, "<|mine|>", TOKEN_NORMAL, 0);
    struct tokenizer *target = made(a), *draft = made(b);
    struct vocab_map *m = mapped(draft, target);
    expect_sound(m, draft, target);
    expect_pair(m, tokenizer_bos(draft), 256, true);
    expect_pair(m, tokenizer_eos(draft), 257, true);
    expect_pair(m, id_of(draft, "<end_of_turn>"), id_of(target, "<|im_end|>"), true);
    expect_pair(m, id_of(draft, "<|tool|>"), id_of(target, "<|tool|>"), true);
    expect_pair(m, id_of(draft, "<|user|>"), id_of(target, "<|user|>"), true);
    expect_pair(m, -1, id_of(target, "<|mine|>"), false); // text that only looks like it
    struct ids read = {0};
    vocab_map_read(m, draft, target, 'a', &read);
    vocab_map_read(m, draft, target, id_of(target, "<|mine|>"), &read);
    cr_expect(read.count == 2 && read.id[0] == tokenizer_bos(draft), "a control token stands for no text");
    ids_free(&read);
    vocab_map_free(m);
    m = mapped(target, draft); // user-defined there, control here
    expect_pair(m, id_of(target, "<|user|>"), id_of(draft, "<|user|>"), true);
    vocab_map_free(m);
    tokenizer_free(target);
    tokenizer_free(draft);
}

// One token both begins and ends texts, as in GPT-2: it is read and guessed as an end.
Test(vocab_map, an_end_that_also_begins_is_an_end) {
    struct tk_made *a = tk_made_bpe();
    tk_made_str(a, "<|endoftext|>", TOKEN_CONTROL, 0);
    a->bos = a->eos = 256;
    struct tokenizer *target = made(a), *draft = made(tk_made_spm(true));
    struct vocab_map *m = mapped(draft, target);
    expect_sound(m, draft, target);
    expect_pair(m, tokenizer_eos(draft), 256, true);
    cr_expect_eq(m->to_target[tokenizer_bos(draft)], -1);
    struct ids read = {0};
    static const int32_t text[] = {256, 'a', 256, 256};
    for (size_t i = 0; i < COUNT_OF(text); i++) vocab_map_read(m, draft, target, text[i], &read);
    cr_assert_eq(read.count, 4, "in front it begins, and once");
    cr_expect(read.id[0] == tokenizer_bos(draft) && read.id[2] == tokenizer_eos(draft) && read.id[3] == tokenizer_eos(draft));
    ids_free(&read);
    vocab_map_free(m);
    tokenizer_free(target);
    tokenizer_free(draft);
}

// A draft whose texts begin with BOS gets one, whatever the target's do; only one.
Test(vocab_map, a_text_begins_as_those_of_the_draft) {
    struct tokenizer *spm = made(tk_made_spm(true)), *bpe = made(tk_made_bpe());
    const struct tokenizer *drafts[] = {spm, spm, bpe}, *targets[] = {spm, bpe, spm};
    for (size_t i = 0; i < COUNT_OF(drafts); i++) {
        struct vocab_map *m = mapped(drafts[i], targets[i]);
        struct ids plain = {0}, behind_bos = {0};
        int32_t letter = targets[i] == bpe ? 'a' : id_of(targets[i], "<0x61>");
        vocab_map_read(m, drafts[i], targets[i], letter, &plain);
        vocab_map_read(m, drafts[i], targets[i], tokenizer_bos(targets[i]), &behind_bos);
        cr_expect_eq(plain.count, drafts[i] == spm ? 2 : 1, "pair %zu", i);
        cr_expect_eq(behind_bos.count, drafts[i] == spm ? 1 : 0, "pair %zu", i);
        if (drafts[i] == spm) cr_expect(plain.id[0] == 1 && behind_bos.id[0] == 1);
        ids_free(&plain);
        ids_free(&behind_bos);
        vocab_map_free(m);
    }
    tokenizer_free(spm);
    tokenizer_free(bpe);
}

static struct tokenizer *padded(int rows, int type) {
    struct tk_made *m = tk_made_bpe();
    tk_made_str(m, GPT_SPACE "a", TOKEN_NORMAL, 0);
    tk_made_str(m, "<|endoftext|>", TOKEN_CONTROL, 0);
    m->eos = 257;
    for (int i = 0; i < rows; i++) {
        char name[16];
        snprintf(name, sizeof name, "[PAD%d]", (int)m->n);
        tk_made_str(m, name, type, 0);
    }
    return made(m);
}

Test(vocab_map, padding_does_not_matter) {
    static const int types[] = {TOKEN_UNUSED, TOKEN_USER, TOKEN_NORMAL};
    for (size_t k = 0; k < COUNT_OF(types); k++)
        for (int rows = 0; rows < 3; rows++) {
            struct tokenizer *draft = padded(20 * rows, types[k]), *target = padded(20, types[0]);
            struct vocab_map *m = mapped(draft, target);
            cr_expect(m->same, "type %d, %d rows", types[k], rows);
            cr_expect(m->share == 1 && m->shared == 258, "share %g", m->share);
            for (int32_t i = 0; i < 258; i++) expect_pair(m, i, i, true);
            for (int32_t i = 258; i < m->target_n; i++) expect_pair(m, -1, i, false);
            for (int32_t i = 258; i < m->draft_n; i++) cr_expect_eq(m->to_target[i], -1);
            struct ids read = {0};
            vocab_map_read(m, draft, target, 100000, &read); // a row of the model past the vocabulary
            cr_expect_eq(read.count, 0);
            vocab_map_free(m);
            tokenizer_free(draft);
            tokenizer_free(target);
        }
}

Test(vocab_map, too_little_in_common_is_refused_with_the_share) {
    struct tk_made *a = tk_made_bpe(), *b = tk_made_spm(true);
    for (int i = 0; i < 600; i++) {
        char name[24];
        snprintf(name, sizeof name, "word%d", i);
        tk_made_str(a, name, TOKEN_NORMAL, 0);
        snprintf(name, sizeof name, "other%d", i);
        if (i < 500) tk_made_str(b, name, TOKEN_NORMAL, 0);
    }
    struct tokenizer *target = made(a), *draft = made(b);
    struct err err;
    cr_expect_null(vocab_map_new(draft, target, 0.5, &err)); // 256 of 856, and of 756
    cr_expect(strstr(err.text, "only 29% of the target's tokens (of 856), and the target's 33% of the draft's") && strstr(err.text, "at least 50% of one"), "%s", err.text);
    struct vocab_map *m = vocab_map_new(draft, target, 256.0 / 757, &err); // a part of the smaller one is enough
    cr_expect(m && m->share_of_draft > m->share, "%s", err.text);
    vocab_map_free(m);
    vocab_map_free(NULL);
    tokenizer_free(target);
    tokenizer_free(draft);
}

// ---- reading

static const char *const texts[] = {
    "",
    "a",
    " ",
    "   two words, three   spaces ",
    "The oven cools slowly; it's 12 degrees warm.\n\n\tNothing cracks, we'll wait.",
    "for (int i = 0; i < n; i++) {\n    sum += x[i]; // caf\xC3\xA9\n}\n",
    "\xE7\x8E\xBB\xE7\x92\x83 na\xC3\xAFve \xF0\x9F\x94\xA5\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD e\xCC\x81\r\n",
    "<s> is markup, <0x41> and \xE2\x96\x81 are text, <|endoftext|> too",
    "broken \xFF\xC0\xE4\xBD bytes \x01\x7F",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa        bbbbbbbbbbbbbbbb\n\n\n\n\n1234567890 3.14159 ABCabc",
};

static struct text pieces_of(const struct tokenizer *t, const struct ids *ids) { // as they stand inside a text
    struct text out = {0};
    text_add(&out, "", 0);
    for (size_t i = 0; i < ids->count; i++) {
        struct span s = tokenizer_piece(t, ids->id[i]);
        text_add(&out, s.p, s.n);
    }
    return out;
}

static bool is_able(const struct tokenizer *t, struct text text) { // some vocabularies lack bytes, or a mark for spaces
    struct ids ids = tk_encode(t, text.data, text.len, TOKENIZE_INSIDE);
    struct text back = pieces_of(t, &ids);
    bool same = back.len == text.len && !memcmp(back.data, text.data, text.len);
    text_free(&back);
    ids_free(&ids);
    return same;
}

// How many texts the draft reads otherwise than the target writes them, of those that it could write.
static int reads_wrong(const struct vocab_map *m, const struct tokenizer *draft, const struct tokenizer *target, bool say) {
    int wrong = 0;
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct ids ids = tk_encode(target, texts[i], strlen(texts[i]), 0), read = {0};
        for (size_t k = 0; k < ids.count; k++) vocab_map_read(m, draft, target, ids.id[k], &read);
        struct text a = pieces_of(target, &ids), b = pieces_of(draft, &read);
        bool same = (a.len == b.len && !memcmp(a.data, b.data, a.len)) || !is_able(draft, a);
        cr_expect(same || !say, "%s reads of %s: \"%s\" for \"%s\"", tokenizer_kind_name(draft), tokenizer_kind_name(target), b.data, a.data);
        wrong += !same;
        text_free(&a);
        text_free(&b);
        ids_free(&ids);
        ids_free(&read);
    }
    return wrong;
}

// Frees the map. unlike: the control; by number it must read something else.
static void expect_reads(struct vocab_map *m, const struct tokenizer *draft, const struct tokenizer *target, bool unlike) {
    expect_sound(m, draft, target);
    reads_wrong(m, draft, target, true);
    for (int32_t t = 0; t < m->target_n; t++) m->to_draft[t] = t < m->draft_n ? t : -1;
    if (unlike) cr_expect_geq(reads_wrong(m, draft, target, false), 5, "by number it would do as well");
    vocab_map_free(m);
}

Test(vocab_map, a_draft_reads_the_text_of_the_target) {
    struct tk_made *with_words = tk_made_spm(true);
    static const char *const words[] = {WORD_MARK, WORD_MARK "t", "h", "e", "a", WORD_MARK WORD_MARK, "o", "s", "l", "w", "ow"};
    for (size_t i = 0; i < COUNT_OF(words); i++) tk_made_str(with_words, words[i], TOKEN_NORMAL, -(float)i);
    struct tokenizer *all[] = {tokenizer_byte(), tk_trained(30000, 350), tk_trained(8000, 420), tk_random_bpe(1),
                               tk_random_spm(1, false), tk_random_spm(2, true), made(with_words), made(tk_made_spm(true))};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        for (size_t k = 0; k < COUNT_OF(all); k++) expect_reads(mapped(all[i], all[k]), all[i], all[k], (i == 1 && k == 6) || (i == 6 && k == 1));
    for (size_t i = 0; i < COUNT_OF(all); i++) tokenizer_free(all[i]);
}

// ---- published vocabularies

// NULL where the folder has no such file.
static struct tokenizer *published(const char *folder, const char *name) {
    struct err err;
    struct text path = {0};
    text_fmt(&path, "%s/%s.gguf", folder, name);
    struct tokenizer *t = NULL;
    if (file_exists(path.data)) {
        t = tokenizer_open(path.data, -1, &err);
        cr_assert(t, "%s", err.text);
    }
    text_free(&path);
    return t;
}

Test(vocab_map, published_vocabularies_share_what_they_should, .timeout = 120) {
    static const char *const names[] = {"gpt-2", "deepseek-coder", "llama-spm", "smollm2", "gemma3-270m", "sns05"};
    const char *vocabs = getenv("LEHR_VOCABS"), *models = getenv("LEHR_MODELS");
    struct tokenizer *all[COUNT_OF(names)];
    const char *name[COUNT_OF(names)];
    size_t n = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *folder = i < 3 ? vocabs : models;
        if (folder && (all[n] = published(folder, names[i]))) name[n++] = names[i];
    }
    if (n < 2) cr_skip_test("LEHR_VOCABS and LEHR_MODELS name no folders with two of gpt-2.gguf, llama-spm.gguf, deepseek-coder.gguf, smollm2.gguf");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) {
            struct vocab_map *m = mapped(all[i], all[k]);
            printf("vocab_map: %s has %.1f%% of %s, %lld ids\n", name[i], 100 * m->share, name[k], (long long)m->shared);
            cr_expect_eq(m->same, i == k);
            cr_expect(i == k ? m->share == 1 : m->share > 0.1 && m->share < 0.97);
            int64_t less = m->draft_n < m->target_n ? m->draft_n : m->target_n;
            cr_expect(m->shared * 2 > less, "English and code: half of the smaller one, found %lld of %lld", (long long)m->shared, (long long)less);
            expect_reads(m, all[i], all[k], i != k);
        }
    for (size_t i = 0; i < n; i++) tokenizer_free(all[i]);
}
