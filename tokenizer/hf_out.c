// hf_out.c: a tokenizer as the tokenizer.json that the package `tokenizers` and our own hf.c read.
//
// The way back of hf.c, from the tokenizer itself and not from a file's keys, so that every source is served alike:
//   byte-level BPE   each stage as the pattern that names it (pretokenizers.c), Digits or Punctuation, then ByteLevel
//   SPM              BPE over characters with bytes as fallback. SentencePiece has scores where BPE has an order of
//                    merges: every split of a token into two tokens is a merge, the best score first
//   Unigram          log probabilities; spaces by Metaspace, the map of characters as Precompiled
// Added tokens are those that our encoder splits out of text, with their flags; BOS and EOS around a text are the
// post-processor. All tokens stand in the vocabulary under their ids, the added ones too.
//
// What has no words there is refused with the reason: spellings that are no UTF-8, pieces of lines that merges do not give.
// What has nearly the same words is written, and notes say what differs.
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581

static bool is_utf8(struct span s) {
    for (size_t at = 0, step; at < s.n; at += step)
        if (!(step = utf8_size(s.p + at, s.n - at))) return false;
    return true;
}

static void put_type(struct json_out *j, const char *key, const char *type) {
    json_out_object(j, key);
    json_out_string(j, "type", type, strlen(type));
}

static void put_bare(struct json_out *j, const char *type) {
    put_type(j, NULL, type);
    json_out_close(j, '}');
}

static void put_span(struct json_out *j, const char *key, struct span s) { json_out_string(j, key, s.p, s.n); }

// ---- added tokens

static void put_added(struct json_out *j, struct span content, int32_t id, unsigned flags) {
    json_out_object(j, NULL);
    json_out_integer(j, "id", id);
    put_span(j, "content", content);
    json_out_bool(j, "single_word", flags & ADDED_SINGLE_WORD);
    json_out_bool(j, "lstrip", flags & ADDED_LSTRIP);
    json_out_bool(j, "rstrip", flags & ADDED_RSTRIP);
    json_out_bool(j, "normalized", flags & ADDED_NORMALIZED);
    json_out_bool(j, "special", flags & ADDED_SPECIAL);
    json_out_close(j, '}');
}

static int by_id(const void *a, const void *b) {
    const struct special_token *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void put_all_added(struct json_out *j, const struct tokenizer *t) {
    json_out_array(j, "added_tokens");
    for (size_t i = 0; t->added && i < t->n_added; i++)
        put_added(j, t->token[t->added[2 * i]], t->added[2 * i], (unsigned)t->added[2 * i + 1]);
    size_t n = t->added ? 0 : t->special.count;
    struct special_token *token = mem_array(n, sizeof *token, "added tokens");
    if (n) memcpy(token, t->special.token, n * sizeof *token);
    if (n) qsort(token, n, sizeof *token, by_id);
    for (size_t i = 0; i < n; i++) {
        unsigned special = t->type[token[i].id] == TOKEN_USER ? 0 : ADDED_SPECIAL;
        put_added(j, token[i].text, token[i].id,
                  special | (token[i].lstrip ? ADDED_LSTRIP : 0) | (token[i].rstrip ? ADDED_RSTRIP : 0));
    }
    mem_free(token);
    json_out_close(j, ']');
}

// ---- normalizers

static void put_replace(struct json_out *j, bool regex, struct span from, struct span to) {
    put_type(j, NULL, "Replace");
    json_out_object(j, "pattern");
    put_span(j, regex ? "Regex" : "String", from);
    json_out_close(j, '}');
    put_span(j, "content", to);
    json_out_close(j, '}');
}

static void put_strip(struct json_out *j, unsigned sides) {
    put_type(j, NULL, "Strip");
    json_out_bool(j, "strip_left", sides & STRIP_LEFT);
    json_out_bool(j, "strip_right", sides & STRIP_RIGHT);
    json_out_close(j, '}');
}

static void put_charsmap(struct json_out *j, const struct text *blob) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct text out = {0};
    const unsigned char *p = (const unsigned char *)blob->data;
    for (size_t i = 0; i < blob->len; i += 3) { // three bytes are four characters, "=" fills up the last four
        size_t have = blob->len - i < 3 ? blob->len - i : 3;
        uint32_t bits = (uint32_t)p[i] << 16 | (have > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (have > 2 ? p[i + 2] : 0);
        char four[4];
        for (size_t k = 0; k < 4; k++) four[k] = k <= have ? digits[bits >> (18 - 6 * k) & 63] : '=';
        text_add(&out, four, 4);
    }
    put_type(j, NULL, "Precompiled");
    json_out_string(j, "precompiled_charsmap", out.data, out.len);
    json_out_close(j, '}');
    text_free(&out);
}

static const struct span blank = {" ", 1}, mark = {WORD_MARK, 3}, blank_run = {" {2,}", 5}, blank_ends = {"^ +| +$", 7};

static void put_prefix_mark(struct json_out *j) {
    put_type(j, NULL, "Prepend");
    put_span(j, "prepend", mark);
    json_out_close(j, '}');
}

// SentencePiece's own treatment of spaces: one in front of the text or, with runs merged, of every word.
static void put_spaces(struct json_out *j, unsigned flags) {
    if (flags & SPACES_MERGE) {
        put_replace(j, true, blank_ends, (struct span){"", 0});
        put_replace(j, true, blank_run, blank);
    }
    if (flags) put_prefix_mark(j);
    put_replace(j, false, blank, mark);
}

static void put_step(struct json_out *j, const struct tokenizer *t, const struct normalize_step *s) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    switch (s->kind) {
    case NORMALIZE_NFC:
    case NORMALIZE_NFD:
    case NORMALIZE_NFKC:
    case NORMALIZE_NFKD: put_bare(j, forms[s->kind]); break;
    case NORMALIZE_STRIP: put_strip(j, s->flags); break;
    case NORMALIZE_REPLACE: put_replace(j, false, s->from, s->to); break;
    case NORMALIZE_TRIM: put_replace(j, true, blank_ends, (struct span){"", 0}); break;
    case NORMALIZE_BLANKS: put_replace(j, true, blank_run, s->to); break;
    case NORMALIZE_LONGEST:
        if (!t->map_blob.len) break; // fallthrough
    case NORMALIZE_CHARSMAP: put_charsmap(j, &t->map_blob); break;
    case NORMALIZE_SPACES: put_spaces(j, s->flags); break;
    case NORMALIZE_COUNT: break;
    }
}

// Spaces become U+2581 by a normalizer: neither Metaspace nor the last step does it.
static bool replaces_spaces(const struct tokenizer *t) { return marks_spaces(t) && !t->metaspace && !t->spaces_done; }

static void put_normalizer(struct json_out *j, const struct tokenizer *t) {
    if (!t->n_steps && !replaces_spaces(t)) {
        json_out_null(j, "normalizer");
        return;
    }
    put_type(j, "normalizer", "Sequence");
    json_out_array(j, "normalizers");
    for (size_t i = 0; i < t->n_steps; i++) put_step(j, t, &t->step[i]);
    if (replaces_spaces(t)) put_spaces(j, t->prefix == PREFIX_NEVER ? 0 : SPACES_PREFIX);
    json_out_close(j, ']');
    json_out_close(j, '}');
}

// ---- pre-tokenizer

static void put_byte_level(struct json_out *j, const char *key, bool pattern) {
    put_type(j, key, "ByteLevel");
    json_out_bool(j, "add_prefix_space", false);
    json_out_bool(j, "trim_offsets", true);
    json_out_bool(j, "use_regex", pattern);
    json_out_close(j, '}');
}

// The kind of pre-tokenizer that a stage is without a pattern; NULL: none.
static const char *kind_of_stage(const struct splitter *s) {
    if (s == &splitters[SPLIT_DIGITS_EACH] || s == &splitters[SPLIT_DIGITS_RUN]) return "Digits";
    return s == &splitters[SPLIT_PUNCTUATION] ? "Punctuation" : NULL;
}

static void put_stage(struct json_out *j, const struct splitter *s) {
    const char *kind = kind_of_stage(s), *pattern = splitter_pattern(s);
    put_type(j, NULL, kind ? kind : "Split");
    if (s == &splitters[SPLIT_PUNCTUATION]) {
        json_out_string(j, "behavior", "Contiguous", 10);
    } else if (kind) {
        json_out_bool(j, "individual_digits", s == &splitters[SPLIT_DIGITS_EACH]);
    } else {
        json_out_object(j, "pattern");
        json_out_string(j, "Regex", pattern, strlen(pattern));
        json_out_close(j, '}');
        json_out_string(j, "behavior", "Isolated", 8);
        json_out_bool(j, "invert", false);
    }
    json_out_close(j, '}');
}

// ByteLevel has GPT-2's pattern in it. It must be the last, as texts are spelled otherwise behind it.
static void put_stages(struct json_out *j, const struct tokenizer *t) {
    size_t n = 0;
    while (n < STAGES_MAX && t->stage[n]) n++;
    bool pattern = n && t->stage[n - 1] == &splitters[SPLIT_GPT2];
    n -= pattern;
    if (!n) {
        put_byte_level(j, "pre_tokenizer", pattern);
        return;
    }
    put_type(j, "pre_tokenizer", "Sequence");
    json_out_array(j, "pretokenizers");
    for (size_t i = 0; i < n; i++) put_stage(j, t->stage[i]);
    put_byte_level(j, NULL, pattern);
    json_out_close(j, ']');
    json_out_close(j, '}');
}

static void put_metaspace(struct json_out *j, const char *key, const struct tokenizer *t) {
    const char *scheme = t->prefix == PREFIX_ALWAYS ? "always" : t->prefix == PREFIX_FIRST ? "first" : "never";
    put_type(j, key, "Metaspace");
    put_span(j, "replacement", mark);
    json_out_string(j, "prepend_scheme", scheme, strlen(scheme));
    json_out_bool(j, "split", t->splits_spaces);
    json_out_close(j, '}');
}

static void put_pre_tokenizer(struct json_out *j, const struct tokenizer *t) {
    if (!marks_spaces(t)) {
        put_stages(j, t);
    } else if (!t->metaspace) {
        json_out_null(j, "pre_tokenizer");
    } else if (!t->splits_words) {
        put_metaspace(j, "pre_tokenizer", t);
    } else {
        put_type(j, "pre_tokenizer", "Sequence");
        json_out_array(j, "pretokenizers");
        put_bare(j, "WhitespaceSplit");
        put_metaspace(j, NULL, t);
        json_out_close(j, ']');
        json_out_close(j, '}');
    }
}

static void put_decoder(struct json_out *j, const struct tokenizer *t) {
    if (!marks_spaces(t)) {
        put_byte_level(j, "decoder", true);
        return;
    }
    put_type(j, "decoder", "Sequence");
    json_out_array(j, "decoders");
    put_replace(j, false, mark, blank);
    put_bare(j, "ByteFallback");
    put_bare(j, "Fuse");
    if (t->space_prefix) {
        put_type(j, NULL, "Strip");
        put_span(j, "content", blank);
        json_out_integer(j, "start", 1);
        json_out_integer(j, "stop", 0);
        json_out_close(j, '}');
    }
    json_out_close(j, ']');
    json_out_close(j, '}');
}

// ---- BOS and EOS

static void put_piece(struct json_out *j, const char *kind, struct span id, int type_id) {
    json_out_object(j, NULL);
    json_out_object(j, kind);
    put_span(j, "id", id);
    json_out_integer(j, "type_id", type_id);
    json_out_close(j, '}');
    json_out_close(j, '}');
}

static void put_template_token(struct json_out *j, const struct tokenizer *t, int32_t id) {
    struct text name = {0};
    text_add(&name, t->token[id].p, t->token[id].n);
    json_out_object(j, name.data);
    put_span(j, "id", t->token[id]);
    json_out_array(j, "ids");
    json_out_integer(j, NULL, id);
    json_out_close(j, ']');
    json_out_array(j, "tokens");
    put_span(j, NULL, t->token[id]);
    json_out_close(j, ']');
    json_out_close(j, '}');
    text_free(&name);
}

// {"single": [BOS, A, EOS], "pair": [BOS, A, EOS, BOS, B, EOS]}, each where it is wanted.
static void put_template(struct json_out *j, const struct tokenizer *t) {
    put_type(j, "post_processor", "TemplateProcessing");
    for (int pair = 0; pair < 2; pair++) {
        json_out_array(j, pair ? "pair" : "single");
        for (int part = 0; part <= pair; part++) {
            if (t->adds_bos) put_piece(j, "SpecialToken", t->token[t->bos], part);
            put_piece(j, "Sequence", (struct span){part ? "B" : "A", 1}, part);
            if (t->adds_eos) put_piece(j, "SpecialToken", t->token[t->eos], part);
        }
        json_out_close(j, ']');
    }
    json_out_object(j, "special_tokens");
    if (t->adds_bos) put_template_token(j, t, t->bos);
    if (t->adds_eos && !(t->adds_bos && t->eos == t->bos)) put_template_token(j, t, t->eos);
    json_out_close(j, '}');
    json_out_close(j, '}');
}

static void put_post_processor(struct json_out *j, const struct tokenizer *t) {
    if (t->adds_bos || t->adds_eos)
        put_template(j, t);
    else if (marks_spaces(t))
        json_out_null(j, "post_processor");
    else
        put_byte_level(j, "post_processor", true);
}

// ---- the model

static void put_pair(struct json_out *j, struct span left, struct span right) {
    json_out_array(j, NULL);
    put_span(j, NULL, left);
    put_span(j, NULL, right);
    json_out_close(j, ']');
}

struct split_merge {
    float score;
    size_t token, left_n; // bytes of the left half
};

static int by_score(const void *a, const void *b) {
    const struct split_merge *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->token != y->token) return x->token < y->token ? -1 : 1;
    return (x->left_n < y->left_n) - (x->left_n > y->left_n);
}

static bool is_text(const struct tokenizer *t, int32_t id) { // what spm.c merges
    return id >= 0 && (t->type[id] == TOKEN_NORMAL || t->type[id] == TOKEN_USER || t->type[id] == TOKEN_UNUSED);
}

// The half of a token: another token, or a character that is none, which only scores can merge.
static bool is_half(const struct tokenizer *t, struct span s, bool *foreign) {
    bool token = is_text(t, tokenizer_find(t, s.p, s.n));
    *foreign |= !token && utf8_size(s.p, s.n) == s.n;
    return token;
}

static void put_spm_merges(struct json_out *j, const struct tokenizer *t, struct text *notes) {
    struct split_merge *m = NULL;
    size_t n = 0, cap = 0, lost = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct span s = t->token[i];
        bool any = false, foreign = false;
        for (size_t at = is_text(t, (int32_t)i) ? utf8_size(s.p, s.n) : s.n; at < s.n; at += utf8_size(s.p + at, s.n - at)) {
            bool left = is_half(t, (struct span){s.p, at}, &foreign);
            if (!is_half(t, (struct span){s.p + at, s.n - at}, &foreign) || !left) continue;
            mem_grow((void **)&m, &cap, n + 1, sizeof *m, "merges of a vocabulary");
            m[n++] = (struct split_merge){t->score[i], i, at};
            any = true;
        }
        lost += foreign && !any && t->type[i] == TOKEN_NORMAL;
    }
    if (n) qsort(m, n, sizeof *m, by_score);
    for (size_t i = 0; i < n; i++) {
        struct span s = t->token[m[i].token];
        put_pair(j, (struct span){s.p, m[i].left_n}, (struct span){s.p + m[i].left_n, s.n - m[i].left_n});
    }
    mem_free(m);
    if (lost && notes)
        text_fmt(notes, "tokenizer.json: %zu tokens are made of characters that are no tokens; merges cannot give them\n", lost);
}

// Empty spellings, which control tokens may have, get the name that a missing token gets.
static struct span spelling(const struct tokenizer *t, size_t i, struct text *name) {
    text_clear(name);
    if (t->token[i].n) {
        text_add(name, t->token[i].p, t->token[i].n);
    } else {
        text_fmt(name, "[PAD%zu]", i);
    }
    return (struct span){name->data, name->len};
}

static void put_unigram(struct json_out *j, const struct tokenizer *t) {
    size_t n = t->n_scored ? t->n_scored : t->n;
    double least = 0;
    for (size_t i = 0; i < n; i++)
        if (t->type[i] == TOKEN_NORMAL && t->unigram.logp[i] < least) least = t->unigram.logp[i];
    if (t->unknown >= 0) json_out_integer(j, "unk_id", t->unknown);
    else json_out_null(j, "unk_id");
    json_out_bool(j, "byte_fallback", t->falls_back);
    json_out_array(j, "vocab");
    struct text name = {0};
    for (size_t i = 0; i < n; i++) {
        // What an unknown character costs goes by the lowest number of all, so those that count for nothing are kept above.
        bool counts = t->n_scored || t->type[i] == TOKEN_NORMAL || t->unigram.logp[i] >= least;
        json_out_array(j, NULL);
        put_span(j, NULL, spelling(t, i, &name));
        json_out_number(j, NULL, counts ? t->unigram.logp[i] : least);
        json_out_close(j, ']');
    }
    text_free(&name);
    json_out_close(j, ']');
}

static void put_bpe(struct json_out *j, const struct tokenizer *t, struct text *notes) {
    bool spm = t->kind == TOKENIZER_SPM, bytes = false;
    for (int i = 0; spm && i < 256; i++) bytes |= t->byte_id[i] >= 0;
    json_out_null(j, "dropout");
    if (t->unknown >= 0 && (spm || t->added)) put_span(j, "unk_token", t->token[t->unknown]);
    else json_out_null(j, "unk_token");
    json_out_null(j, "continuing_subword_prefix");
    json_out_null(j, "end_of_word_suffix");
    json_out_bool(j, "fuse_unk", t->fuses_unknown);
    json_out_bool(j, "byte_fallback", bytes);
    json_out_bool(j, "ignore_merges", t->ignores_merges);
    struct text name = {0};
    json_out_object(j, "vocab");
    for (size_t i = 0; i < t->n; i++) json_out_integer(j, spelling(t, i, &name).p, (int64_t)i);
    json_out_close(j, '}');
    text_free(&name);
    json_out_array(j, "merges");
    if (spm && !t->by_rules) put_spm_merges(j, t, notes);
    for (size_t i = 0; i < t->n_rules; i++) put_pair(j, t->token[t->rules[i].left], t->token[t->rules[i].right]);
    json_out_close(j, ']');
}

// ---- what cannot be said

// Gemma 4 cuts at line ends, and a run of them that is a token is that token. Without a cut it is the same where no
// token has line ends beside other characters and the merges lead to those that have nothing else.
static bool lines_matter(const struct tokenizer *t) {
    struct tokenizer whole = *t;
    whole.splits_lines = false;
    struct ids ids = {0};
    bool matter = false;
    for (size_t i = 0; t->splits_lines && i < t->n && !matter; i++) {
        struct span s = t->token[i];
        if (!is_text(t, (int32_t)i) || !memchr(s.p, '\n', s.n)) continue;
        ids.count = 0;
        for (size_t at = 0; at < s.n; at++) matter |= s.p[at] != '\n' && t->type[i] != TOKEN_USER;
        tokenizer_encode(&whole, s.p, s.n, 0, &ids);
        matter |= ids.count != 1;
    }
    ids_free(&ids);
    return matter;
}

static bool can_be_said(const struct tokenizer *t, struct err *err) {
    unsigned char *added = mem_array(t->n, 1, "added tokens");
    bool good = true;
    for (size_t i = 0; i < t->n_added; i++) added[t->added[2 * i]] = 1;
    for (size_t i = 0; i < t->n && good; i++) {
        struct span s = t->token[i];
        if (!is_utf8(s)) good = err_set(err, "token %zu is no UTF-8", i);
        else if (s.n && memchr(s.p, 0, s.n)) good = err_set(err, "token %zu holds a NUL", i);
        else if (t->n_scored && i >= t->n_scored && !added[i])
            good = err_set(err, "token %zu is neither scored nor an added one", i);
    }
    mem_free(added);
    for (size_t i = 0; !marks_spaces(t) && i < STAGES_MAX && t->stage[i] && good; i++)
        if (!splitter_pattern(t->stage[i]) && !kind_of_stage(t->stage[i]))
            good = err_set(err, "the pre-tokenizer '%s' has a step '%s' that has no pattern there", t->pre, t->stage[i]->name);
    if (good && lines_matter(t)) good = err_set(err, "its pieces end at line ends, and merges alone give others");
    return good;
}

static void tell_differences(const struct tokenizer *t, struct text *notes) {
    bool longest = false;
    for (size_t i = 0; i < t->n_steps; i++) longest |= t->step[i].kind == NORMALIZE_LONGEST && t->map_blob.len;
    if (longest && notes)
        text_str(notes, "tokenizer.json: the map of characters is applied to whole clusters there, to the longest match by SentencePiece; "
                        "some texts with combining marks get other ids\n");
}

bool tokenizer_write_json(const struct tokenizer *t, struct text *json, struct text *notes, struct err *err) {
    if (!can_be_said(t, err)) return false;
    struct json_out j;
    json_out_open(&j, json);
    json_out_object(&j, NULL);
    json_out_string(&j, "version", "1.0", 3);
    json_out_null(&j, "truncation");
    json_out_null(&j, "padding");
    put_all_added(&j, t);
    put_normalizer(&j, t);
    put_pre_tokenizer(&j, t);
    put_post_processor(&j, t);
    put_decoder(&j, t);
    put_type(&j, "model", t->kind == TOKENIZER_UNIGRAM ? "Unigram" : "BPE");
    if (t->kind == TOKENIZER_UNIGRAM) put_unigram(&j, t);
    else put_bpe(&j, t, notes);
    json_out_close(&j, '}');
    json_out_close(&j, '}');
    text_str(json, "\n");
    tell_differences(t, notes);
    return true;
}
