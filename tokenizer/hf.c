// hf.c: tokenizer.json of Hugging Face folders.
//
//     { "added_tokens": [{id, content, special, lstrip, rstrip, single_word, normalized}],
//       "normalizer", "pre_tokenizer", "post_processor", "decoder": null or {"type": ...} or a Sequence of such,
//       "model": {"type": "BPE" | "Unigram", "vocab": {spelling: id} | [[spelling, log probability]],
//                 "merges": ["left right"] | [["left", "right"]], "unk_token", "byte_fallback", "ignore_merges", ...} }
//
// The file is a program in a small language; what of it is known becomes a recipe, the rest is refused by its name.
// Known are the two ways that language models are spelled:
//   byte-level BPE   patterns (pretokenizers.c), Digits, Punctuation, then ByteLevel; NFC in front
//   SentencePiece    BPE over characters with "▁" for spaces (Prepend and Replace, or Metaspace), bytes as fallback; Unigram
// One pass over the text, every string copied once; ids and counts are held against the size of the file.
#include "tokenizer/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581
#define KEY_MAX 16384             // bytes of a spelling that is a key

struct place { // a string in hf.strings
    size_t at, n;
};
struct hf_added {
    struct place text;
    int64_t id;
    bool special, lstrip, rstrip, normalized, single_word;
};
struct hf_step { // of normalization
    enum normalize_kind kind;
    unsigned flags;
    struct place from, to;
};
struct hf {
    size_t file_bytes;
    struct text strings, value; // all that is kept; the string read last
    char *key;                  // KEY_MAX
    struct place *token;        // by id; at SIZE_MAX: none
    double *logp;
    size_t n, token_cap, logp_cap;
    struct place *merge; // left and right in turn
    size_t n_merges, merge_cap;
    struct hf_added *added;
    size_t n_added, added_cap;
    bool unigram, has_vocab, byte_fallback, fuse_unknown, ignores_merges;
    struct place unknown_text;
    int64_t unknown_id;
    struct hf_step step[STEPS_MAX];
    size_t n_steps;
    struct place charsmap;
    bool prepends, replaces_spaces, splits_words;
    const struct splitter *stage[STAGES_MAX];
    size_t n_stages;
    bool byte_level, metaspace, metaspace_splits;
    enum space_prefix metaspace_prefix;
    struct place bos, eos; // of the template
    bool has_template;
};
static const struct place nowhere = {SIZE_MAX, 0};

static void hf_free(struct hf *h) {
    text_free(&h->strings);
    text_free(&h->value);
    mem_free(h->key);
    mem_free(h->token);
    mem_free(h->logp);
    mem_free(h->merge);
    mem_free(h->added);
}

static struct place keep(struct hf *h, const char *p, size_t n) {
    struct place s = {h->strings.len, n};
    text_add(&h->strings, p, n);
    return s;
}

static struct span span_of(const struct hf *h, struct place s) {
    return s.at == SIZE_MAX ? (struct span){"", 0} : (struct span){h->strings.data + s.at, s.n};
}

static bool is(const struct text *t, const char *word) { return t->len == strlen(word) && !memcmp(t->data, word, t->len); }

static int shown(size_t n) { return n < 60 ? (int)n : 60; }

// The string at the cursor into h->value; null gives an empty one.
static bool read_string(struct hf *h, struct json *j) {
    text_clear(&h->value);
    text_add(&h->value, "", 0);
    return json_peek(j) == JSON_NULL ? json_skip(j) : json_string(j, &h->value);
}

static bool read_flag(struct json *j, bool *flag) { return json_peek(j) == JSON_NULL ? json_skip(j) : json_bool(j, flag); }

// ---- vocabulary

static bool token_put(struct hf *h, int64_t id, const char *spelling, size_t n, struct err *err) {
    if (id < 0 || (uint64_t)id >= VOCAB_MAX || (uint64_t)id > h->file_bytes)
        return err_set(err, "token \"%.*s\" has id %lld, more than the file can hold", shown(n), spelling, (long long)id);
    size_t i = (size_t)id;
    if (i >= h->token_cap) {
        size_t from = h->token_cap;
        mem_grow((void **)&h->token, &h->token_cap, i + 1, sizeof *h->token, "vocabulary");
        for (; from < h->token_cap; from++) h->token[from] = nowhere;
    }
    if (i >= h->n) h->n = i + 1;
    if (h->token[i].at != SIZE_MAX) {
        struct span s = span_of(h, h->token[i]);
        return (s.n == n && !memcmp(s.p, spelling, n)) ||
               err_set(err, "\"%.*s\" and \"%.*s\" both have id %lld", shown(s.n), s.p, shown(n), spelling, (long long)id);
    }
    h->token[i] = keep(h, spelling, n);
    return true;
}

static bool read_vocab(struct hf *h, struct json *j, struct err *err) {
    h->has_vocab = true;
    if (json_peek(j) == JSON_ARRAY) { // Unigram: [spelling, log probability], ids in order
        h->unigram = true;
        json_array(j);
        for (int64_t id = 0; json_item(j); id++) {
            double logp = 0;
            if (!json_array(j) || !json_item(j) || !read_string(h, j) || !json_item(j) || !json_number(j, &logp) || json_item(j))
                return json_done(j, err) || err_set(err, "entry %lld of the vocabulary is no pair", (long long)id);
            if (!token_put(h, id, h->value.data, h->value.len, err)) return false;
            if ((size_t)id >= h->logp_cap)
                mem_grow((void **)&h->logp, &h->logp_cap, (size_t)id + 1, sizeof *h->logp, "log probabilities");
            h->logp[id] = logp;
        }
        return true;
    }
    if (json_object(j))
        for (size_t n; json_key_bytes(j, h->key, KEY_MAX, &n);) {
            int64_t id;
            if (!json_integer(j, &id)) break;
            if (!token_put(h, id, h->key, n, err)) return false;
        }
    return true;
}

static bool read_merges(struct hf *h, struct json *j, struct err *err) {
    if (json_array(j))
        while (json_item(j)) {
            struct place left, right;
            if (json_peek(j) == JSON_ARRAY) {
                json_array(j);
                if (!json_item(j) || !read_string(h, j)) return err_set(err, "merge %zu is no pair", h->n_merges + 1);
                left = keep(h, h->value.data, h->value.len);
                if (!json_item(j) || !read_string(h, j)) return err_set(err, "merge %zu is no pair", h->n_merges + 1);
                right = keep(h, h->value.data, h->value.len);
                if (json_item(j)) return err_set(err, "merge %zu has more than two parts", h->n_merges + 1);
            } else {
                if (!read_string(h, j)) break;
                const char *space = memchr(h->value.data, ' ', h->value.len);
                if (!space) return err_set(err, "merge %zu is no pair", h->n_merges + 1);
                left = keep(h, h->value.data, (size_t)(space - h->value.data));
                right = keep(h, space + 1, h->value.len - left.n - 1);
            }
            if (2 * h->n_merges + 2 > h->merge_cap)
                mem_grow((void **)&h->merge, &h->merge_cap, 2 * h->n_merges + 2, sizeof *h->merge, "merges");
            h->merge[2 * h->n_merges] = left;
            h->merge[2 * h->n_merges++ + 1] = right;
        }
    return true;
}

static bool read_model(struct hf *h, struct json *j, struct err *err) {
    if (!json_object(j)) return true;
    while (json_key(j, h->key, KEY_MAX)) {
        const char *key = h->key;
        if (!strcmp(key, "vocab")) {
            if (!read_vocab(h, j, err)) return false;
        } else if (!strcmp(key, "merges")) {
            if (!read_merges(h, j, err)) return false;
        } else if (!strcmp(key, "type")) {
            if (read_string(h, j) && !is(&h->value, "BPE") && !is(&h->value, "Unigram"))
                return err_set(err, "expected a model of type BPE or Unigram, found %.*s", shown(h->value.len), h->value.data);
        } else if (!strcmp(key, "unk_token")) {
            if (read_string(h, j) && h->value.len) h->unknown_text = keep(h, h->value.data, h->value.len);
        } else if (!strcmp(key, "unk_id")) {
            if (json_peek(j) == JSON_NULL)
                json_skip(j);
            else
                json_integer(j, &h->unknown_id);
        } else if (!strcmp(key, "byte_fallback")) {
            read_flag(j, &h->byte_fallback);
        } else if (!strcmp(key, "fuse_unk")) {
            read_flag(j, &h->fuse_unknown);
        } else if (!strcmp(key, "ignore_merges")) {
            read_flag(j, &h->ignores_merges);
        } else if (!strcmp(key, "dropout")) {
            double dropout = 0;
            if (json_peek(j) == JSON_NULL)
                json_skip(j);
            else if (json_number(j, &dropout) && dropout != 0)
                return err_set(err, "the model drops merges at random (dropout %g), which is for training", dropout);
        } else if (!strcmp(key, "continuing_subword_prefix") || !strcmp(key, "end_of_word_suffix")) {
            char name[32];
            snprintf(name, sizeof name, "%s", key);
            if (read_string(h, j) && h->value.len)
                return err_set(err, "the model has a %s (\"%.*s\"), which is not supported", name, shown(h->value.len), h->value.data);
        } else {
            json_skip(j);
        }
    }
    return true;
}

static bool read_added(struct hf *h, struct json *j) {
    if (json_peek(j) == JSON_NULL) return json_skip(j) || true;
    if (!json_array(j)) return true;
    while (json_item(j)) {
        struct hf_added a = {.text = nowhere, .id = -1, .normalized = true};
        if (!json_object(j)) break;
        while (json_key(j, h->key, KEY_MAX)) {
            if (!strcmp(h->key, "id"))
                json_integer(j, &a.id);
            else if (!strcmp(h->key, "content") && read_string(h, j))
                a.text = keep(h, h->value.data, h->value.len);
            else if (!strcmp(h->key, "special"))
                read_flag(j, &a.special);
            else if (!strcmp(h->key, "lstrip"))
                read_flag(j, &a.lstrip);
            else if (!strcmp(h->key, "rstrip"))
                read_flag(j, &a.rstrip);
            else if (!strcmp(h->key, "normalized"))
                read_flag(j, &a.normalized);
            else if (!strcmp(h->key, "single_word"))
                read_flag(j, &a.single_word);
            else
                json_skip(j);
        }
        if (h->n_added == h->added_cap)
            mem_grow((void **)&h->added, &h->added_cap, h->n_added + 1, sizeof *h->added, "added tokens");
        h->added[h->n_added++] = a;
    }
    return true;
}

// ---- normalizer, pre-tokenizer, post-processor: objects with a type, or a Sequence of them

// The members that any of them has; what is not there keeps its default.
struct part {
    char type[32], behavior[32], scheme[16];
    struct place pattern, content, prepend, replacement, charsmap;
    bool regex, invert, individual_digits, add_prefix_space, use_regex, split, has_scheme, strip_left, strip_right;
};

static void word_of(const struct hf *h, char *to, size_t cap) {
    snprintf(to, cap, "%.*s", (int)(h->value.len < cap ? h->value.len : cap - 1), h->value.data);
}

static bool read_pattern(struct hf *h, struct json *j, struct part *p) {
    if (json_peek(j) == JSON_STRING) {
        if (read_string(h, j)) p->pattern = keep(h, h->value.data, h->value.len);
        return true;
    }
    if (json_object(j))
        while (json_key(j, h->key, KEY_MAX)) {
            p->regex = !strcmp(h->key, "Regex");
            if (read_string(h, j)) p->pattern = keep(h, h->value.data, h->value.len);
        }
    return true;
}

typedef bool part_fn(struct hf *h, const struct part *p, struct err *err);
static bool read_template(struct hf *h, struct json *j, struct err *err);

// Four characters of base64 are three bytes; "=" fills up the last four.
static bool read_base64(struct hf *h, struct json *j, struct place *to) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    signed char value[256];
    if (!read_string(h, j)) return true; // the reader keeps the error
    memset(value, -1, sizeof value);
    for (int i = 0; i < 64; i++) value[(unsigned char)digits[i]] = (signed char)i;
    size_t n = h->value.len;
    while (n && h->value.data[n - 1] == '=') n--;
    uint32_t bits = 0;
    *to = keep(h, "", 0);
    for (size_t i = 0; i < n; i++) {
        int digit = value[(unsigned char)h->value.data[i]];
        if (digit < 0) return false;
        bits = bits << 6 | (uint32_t)digit;
        char byte = (char)(bits >> (6 - 2 * (i % 4))); // 4, 2, 0 bits wait for the next digit
        if (i % 4) text_add(&h->strings, &byte, 1);
    }
    to->n = h->strings.len - to->at;
    return true;
}

// Calls take for every part, those of nested sequences in order. (JSON is at most 32 deep.)
static bool read_parts(struct hf *h, struct json *j, const char *list, part_fn *take, struct err *err) {
    if (json_peek(j) == JSON_NULL) return json_skip(j) || true;
    struct part p = {.pattern = nowhere, .content = nowhere, .prepend = nowhere, .replacement = nowhere, .charsmap = nowhere,
                     .use_regex = true, .split = true, .add_prefix_space = true, .strip_left = true, .strip_right = true};
    if (!json_object(j)) return true;
    bool sequence = false;
    while (json_key(j, h->key, KEY_MAX)) {
        const char *key = h->key;
        if (!strcmp(key, list)) {
            sequence = true;
            if (json_array(j))
                while (json_item(j))
                    if (!read_parts(h, j, list, take, err)) return false;
        } else if (!strcmp(key, "type")) {
            if (read_string(h, j)) word_of(h, p.type, sizeof p.type);
        } else if (!strcmp(key, "behavior")) {
            if (read_string(h, j)) word_of(h, p.behavior, sizeof p.behavior);
        } else if (!strcmp(key, "prepend_scheme")) {
            p.has_scheme = true;
            if (read_string(h, j)) word_of(h, p.scheme, sizeof p.scheme);
        } else if (!strcmp(key, "pattern")) {
            read_pattern(h, j, &p);
        } else if (!strcmp(key, "content")) {
            if (read_string(h, j)) p.content = keep(h, h->value.data, h->value.len);
        } else if (!strcmp(key, "prepend")) {
            if (read_string(h, j)) p.prepend = keep(h, h->value.data, h->value.len);
        } else if (!strcmp(key, "replacement")) {
            if (read_string(h, j)) p.replacement = keep(h, h->value.data, h->value.len);
        } else if (!strcmp(key, "precompiled_charsmap")) {
            if (!read_base64(h, j, &p.charsmap)) return err_set(err, "the precompiled map of characters is no base64");
        } else if (!strcmp(key, "single") && !strcmp(list, "processors")) {
            if (!read_template(h, j, err)) return false;
        } else {
            bool *flag = !strcmp(key, "invert")              ? &p.invert
                         : !strcmp(key, "individual_digits") ? &p.individual_digits
                         : !strcmp(key, "add_prefix_space")  ? &p.add_prefix_space
                         : !strcmp(key, "use_regex")         ? &p.use_regex
                         : !strcmp(key, "split")             ? &p.split
                         : !strcmp(key, "strip_left")        ? &p.strip_left
                         : !strcmp(key, "strip_right")       ? &p.strip_right
                                                             : NULL;
            if (flag)
                read_flag(j, flag);
            else
                json_skip(j);
        }
    }
    if (j->bad || (sequence && !strcmp(p.type, "Sequence"))) return true;
    return take(h, &p, err);
}

static bool place_is(const struct hf *h, struct place s, const char *text) {
    struct span t = span_of(h, s);
    return t.n == strlen(text) && !memcmp(t.p, text, t.n);
}

// The step of normalization that a part is, NORMALIZE_COUNT for none.
static enum normalize_kind normalize_kind_of(const struct hf *h, const struct part *p) {
    static const struct {
        const char *type;
        enum normalize_kind kind;
    } plain[] = {{"NFC", NORMALIZE_NFC}, {"NFD", NORMALIZE_NFD}, {"NFKC", NORMALIZE_NFKC}, {"NFKD", NORMALIZE_NFKD},
                 {"Strip", NORMALIZE_STRIP}, {"Precompiled", NORMALIZE_CHARSMAP}};
    for (size_t i = 0; i < COUNT_OF(plain); i++)
        if (!strcmp(p->type, plain[i].type)) return plain[i].kind;
    if (strcmp(p->type, "Replace") != 0) return NORMALIZE_COUNT;
    struct span s = span_of(h, p->pattern);
    if (!p->regex) return s.n ? NORMALIZE_REPLACE : NORMALIZE_COUNT;
    if (place_is(h, p->pattern, " {2,}")) return NORMALIZE_BLANKS;
    if (place_is(h, p->pattern, "^ +| +$") && place_is(h, p->content, "")) return NORMALIZE_TRIM;
    for (size_t i = 0; i < s.n; i++) // a pattern without operators is a string
        if (strchr("\\^$.|?*+()[]{}", s.p[i]) && s.p[i]) return NORMALIZE_COUNT;
    return s.n ? NORMALIZE_REPLACE : NORMALIZE_COUNT;
}

static bool take_normalizer(struct hf *h, const struct part *p, struct err *err) {
    if (!strcmp(p->type, "Prepend") && place_is(h, p->prepend, WORD_MARK) && !h->replaces_spaces && !h->prepends)
        return h->prepends = true;
    bool marks = !strcmp(p->type, "Replace") && place_is(h, p->pattern, " ") && place_is(h, p->content, WORD_MARK);
    if (marks && !h->replaces_spaces) return h->replaces_spaces = true;
    enum normalize_kind kind = normalize_kind_of(h, p);
    struct span s = span_of(h, p->pattern);
    if (kind == NORMALIZE_COUNT || (kind == NORMALIZE_CHARSMAP && (p->charsmap.at == SIZE_MAX || h->charsmap.at != SIZE_MAX)))
        return err_set(err, "the normalizer %s%s%.*s%s is not supported; known are NFC, NFD, NFKC, NFKD, Strip, one Precompiled, Replace "
                            "of a string or of runs of spaces, and Prepend of U+2581", p->type, s.n ? " of \"" : "", shown(s.n), s.p,
                       s.n ? "\"" : "");
    if (h->prepends || h->replaces_spaces)
        return err_set(err, "the normalizer %s stands behind the one that marks spaces by U+2581, which is not supported", p->type);
    if (h->n_steps == STEPS_MAX) return err_set(err, "there are more than %d normalizers", STEPS_MAX);
    if (kind == NORMALIZE_CHARSMAP) h->charsmap = p->charsmap;
    unsigned sides = (p->strip_left ? STRIP_LEFT : 0) | (p->strip_right ? STRIP_RIGHT : 0);
    bool replaces = kind == NORMALIZE_REPLACE || kind == NORMALIZE_BLANKS;
    h->step[h->n_steps++] = (struct hf_step){kind, kind == NORMALIZE_STRIP ? sides : 0, kind == NORMALIZE_REPLACE ? p->pattern : nowhere,
                                             replaces ? p->content : nowhere};
    return true;
}

static bool add_stage(struct hf *h, const struct splitter *s, struct err *err) {
    // Behind ByteLevel a text is spelled bytes; ASCII digits are the same there.
    bool late = h->byte_level && s != &splitters[SPLIT_ASCII_3];
    if (h->n_stages == STAGES_MAX || late || h->metaspace)
        return err_set(err, "the pre-tokenizer has more or other steps than any known one");
    h->stage[h->n_stages++] = s;
    return true;
}

static bool take_split(struct hf *h, const struct part *p, struct err *err) {
    struct span s = span_of(h, p->pattern);
    if (!p->regex && place_is(h, p->pattern, " ") && h->replaces_spaces) return true; // there are none left
    const struct splitter *known = p->regex ? splitter_of_pattern(s.p, s.n) : NULL;
    if (!known)
        return err_set(err, "the pre-tokenizer splits by the pattern \"%.*s\", which is none of the known ones",
                       s.n < 400 ? (int)s.n : 400, s.p);
    bool covers = known < &splitters[SPLIT_DEEPSEEK3]; // matches all of any text: nothing stands between matches
    bool isolated = !strcmp(p->behavior, "Isolated") && !p->invert;
    if (!isolated && !(covers && p->invert && !strcmp(p->behavior, "Removed")))
        return err_set(err, "the pre-tokenizer splits with behavior %s%s, known is Isolated", p->behavior, p->invert ? ", inverted" : "");
    return add_stage(h, known, err);
}

static bool take_pre_tokenizer(struct hf *h, const struct part *p, struct err *err) {
    if (!strcmp(p->type, "Split")) return take_split(h, p, err);
    if (!strcmp(p->type, "Digits"))
        return add_stage(h, &splitters[p->individual_digits ? SPLIT_DIGITS_EACH : SPLIT_DIGITS_RUN], err);
    if (!strcmp(p->type, "Punctuation") && !strcmp(p->behavior, "Contiguous"))
        return add_stage(h, &splitters[SPLIT_PUNCTUATION], err);
    if (!strcmp(p->type, "ByteLevel")) {
        if (p->add_prefix_space) return err_set(err, "the pre-tokenizer ByteLevel with add_prefix_space is not supported");
        if (p->use_regex && !add_stage(h, &splitters[SPLIT_GPT2], err)) return false;
        return h->byte_level = true;
    }
    if (!strcmp(p->type, "WhitespaceSplit") && !h->n_stages && !h->byte_level && !h->metaspace) return h->splits_words = true;
    if (!strcmp(p->type, "Metaspace") && place_is(h, p->replacement, WORD_MARK) && !h->n_stages && !h->byte_level) {
        h->metaspace = true;
        h->metaspace_splits = p->split;
        bool never = p->has_scheme ? !strcmp(p->scheme, "never") : !p->add_prefix_space;
        h->metaspace_prefix = never ? PREFIX_NEVER : p->has_scheme && !strcmp(p->scheme, "first") ? PREFIX_FIRST : PREFIX_ALWAYS;
        return true;
    }
    return err_set(err, "the pre-tokenizer %s%s%s is not supported; known are Split, Digits, Punctuation (Contiguous), ByteLevel, "
                        "WhitespaceSplit and Metaspace", p->type, *p->behavior ? " " : "", p->behavior);
}

// [{"SpecialToken": {"id": "<s>", ...}}, {"Sequence": ...}, ...]
static bool read_template(struct hf *h, struct json *j, struct err *err) {
    bool after = false, sequence = false;
    h->has_template = true;
    if (!json_array(j)) return true;
    while (json_item(j)) {
        if (!json_object(j)) break;
        while (json_key(j, h->key, KEY_MAX)) {
            sequence = !strcmp(h->key, "Sequence");
            if (!json_object(j)) break;
            while (json_key(j, h->key, KEY_MAX)) {
                if (sequence || strcmp(h->key, "id") != 0) {
                    json_skip(j);
                    continue;
                }
                if (!read_string(h, j)) break;
                struct place *to = after ? &h->eos : &h->bos;
                if (to->at != SIZE_MAX)
                    return err_set(err, "the post-processor puts more than one token %s a text", after ? "behind" : "in front of");
                *to = keep(h, h->value.data, h->value.len);
            }
            if (sequence) after = true;
        }
    }
    return true;
}

static bool take_post_processor(struct hf *h, const struct part *p, struct err *err) {
    (void)h;
    if (!strcmp(p->type, "TemplateProcessing") || !strcmp(p->type, "ByteLevel")) return true;
    return err_set(err, "the post-processor %s is not supported; known are TemplateProcessing and ByteLevel", p->type);
}

static bool take_decoder(struct hf *h, const struct part *p, struct err *err) {
    static const char *const known[] = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
    (void)h;
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (!strcmp(p->type, known[i])) return true;
    return err_set(err, "the decoder %s is not supported", p->type);
}

static bool read_file(struct hf *h, struct json *j, struct err *err) {
    bool good = true;
    if (json_object(j))
        while (good && json_key(j, h->key, KEY_MAX)) {
            if (!strcmp(h->key, "model"))
                good = read_model(h, j, err);
            else if (!strcmp(h->key, "added_tokens"))
                good = read_added(h, j);
            else if (!strcmp(h->key, "normalizer"))
                good = read_parts(h, j, "normalizers", take_normalizer, err);
            else if (!strcmp(h->key, "pre_tokenizer"))
                good = read_parts(h, j, "pretokenizers", take_pre_tokenizer, err);
            else if (!strcmp(h->key, "post_processor"))
                good = read_parts(h, j, "processors", take_post_processor, err);
            else if (!strcmp(h->key, "decoder"))
                good = read_parts(h, j, "decoders", take_decoder, err);
            else
                json_skip(j);
        }
    if (j->bad) return json_done(j, err); // says where
    if (!good) return false;
    if (!json_done(j, err)) return false;
    return h->has_vocab || err_set(err, "there is no model with a vocabulary; is this a tokenizer.json?");
}

// ---- tokenizer_config.json

struct hf_config {
    struct place bos, eos;
    bool adds_bos, adds_eos;
};

// A token as its text or as an object with "content".
static struct place read_config_token(struct hf *h, struct json *j) {
    struct place s = nowhere;
    if (json_peek(j) == JSON_STRING) {
        if (read_string(h, j)) s = keep(h, h->value.data, h->value.len);
    } else if (json_peek(j) == JSON_OBJECT && json_object(j)) {
        while (json_key(j, h->key, KEY_MAX)) {
            if (!strcmp(h->key, "content") && read_string(h, j))
                s = keep(h, h->value.data, h->value.len);
            else
                json_skip(j);
        }
    } else {
        json_skip(j);
    }
    return s;
}

static bool read_config(struct hf *h, const char *path, struct hf_config *c, struct err *err) {
    struct file_map m;
    *c = (struct hf_config){nowhere, nowhere, false, false};
    if (!path) return true;
    if (!file_map_open(&m, path, err)) return false;
    struct json j;
    json_open(&j, (const char *)m.data, m.size);
    if (json_object(&j))
        while (json_key(&j, h->key, KEY_MAX)) {
            if (!strcmp(h->key, "bos_token"))
                c->bos = read_config_token(h, &j);
            else if (!strcmp(h->key, "eos_token"))
                c->eos = read_config_token(h, &j);
            else if (!strcmp(h->key, "add_bos_token"))
                read_flag(&j, &c->adds_bos);
            else if (!strcmp(h->key, "add_eos_token"))
                read_flag(&j, &c->adds_eos);
            else
                json_skip(&j);
        }
    bool good = json_done(&j, err);
    if (!good) err_in(err, "%s", path);
    file_map_close(&m);
    return good;
}

// ---- the recipe

struct hf_recipe {
    struct span *tokens, *merges, *merge_right;
    unsigned char *types;
    struct added_token *added;
    struct normalize_step step[STEPS_MAX];
    double *logp;
};

static int64_t id_of(const struct hf *h, struct place s) {
    struct span wanted = span_of(h, s);
    for (size_t i = h->n; s.at != SIZE_MAX && i-- > 0;) { // special tokens stand at the ends
        struct span t = span_of(h, h->token[i]);
        if (t.n == wanted.n && t.n && !memcmp(t.p, wanted.p, t.n)) return (int64_t)i;
    }
    return -1;
}

static bool special_id(const struct hf *h, struct place s, const char *what, int64_t *id, struct err *err) {
    *id = id_of(h, s);
    struct span t = span_of(h, s);
    return s.at == SIZE_MAX || *id >= 0 || err_set(err, "the %s token \"%.*s\" is not in the vocabulary", what, shown(t.n), t.p);
}

static bool added_put(struct hf *h, struct err *err) {
    for (size_t i = 0; i < h->n_added; i++) {
        struct span s = span_of(h, h->added[i].text);
        struct text copy = {0}; // the strings may move
        text_add(&copy, s.p, s.n);
        bool good = s.n ? token_put(h, h->added[i].id, copy.data, copy.len, err) : err_set(err, "added token %zu is empty", i);
        text_free(&copy);
        if (!good) return false;
    }
    return true;
}

// Ids that no token has get a spelling and are never used, as exporters of GGUF do.
static void fill_holes(struct hf *h, unsigned char *types) {
    for (size_t i = 0; i < h->n; i++) {
        types[i] = TOKEN_NORMAL;
        if (h->token[i].at != SIZE_MAX) continue;
        char name[32];
        int n = snprintf(name, sizeof name, "[PAD%zu]", i);
        h->token[i] = keep(h, name, (size_t)n);
        types[i] = TOKEN_UNUSED;
    }
}

static bool kind_of(const struct hf *h, struct recipe *r, struct err *err) {
    r->kind = h->unigram ? TOKENIZER_UNIGRAM : h->byte_level ? TOKENIZER_BPE : TOKENIZER_SPM;
    bool marks = h->metaspace || h->replaces_spaces;
    if (h->byte_level && (marks || h->prepends || h->unigram || h->splits_words))
        return err_set(err, "a byte-level vocabulary that is Unigram, or whose spaces are replaced, is not supported");
    if (h->byte_level) return true;
    if (!marks || h->n_stages || (h->prepends && h->metaspace) || h->ignores_merges || (h->splits_words && !h->metaspace))
        return err_set(err, "%s needs spaces replaced by U+2581 and no other pre-tokenizer",
                       h->unigram ? "a Unigram model" : "a BPE of characters");
    return true;
}

static void recipe_normalizers(const struct hf *h, struct hf_recipe *p, struct recipe *r) {
    for (size_t i = 0; i < h->n_steps; i++)
        p->step[i] = (struct normalize_step){h->step[i].kind, h->step[i].flags, span_of(h, h->step[i].from), span_of(h, h->step[i].to)};
    r->step = p->step;
    r->n_steps = h->n_steps;
    r->charsmap = span_of(h, h->charsmap);
}

// What a Unigram model has beside the rest: log probabilities of the tokens in its own list.
static bool recipe_unigram(const struct hf *h, size_t n_scored, struct hf_recipe *p, struct recipe *r, struct err *err) {
    if (!n_scored) return err_set(err, "the Unigram model has no tokens");
    p->logp = mem_array(h->n, sizeof *p->logp, "log probabilities");
    memcpy(p->logp, h->logp, n_scored * sizeof *p->logp);
    r->logp = p->logp;
    r->n_scored = n_scored;
    r->falls_back = h->byte_fallback;
    r->unknown = h->unknown_id;
    return h->unknown_id < (int64_t)n_scored ||
           err_set(err, "unk_id is %lld, the model has %zu tokens", (long long)h->unknown_id, n_scored);
}

static bool hf_recipe_make(struct hf *h, const struct hf_config *c, struct hf_recipe *p, struct recipe *r, struct err *err) {
    size_t n_scored = h->n;
    if (!added_put(h, err) || !kind_of(h, r, err)) return false;
    if (!h->n) return err_set(err, "the vocabulary is empty");
    r->n = h->n;
    p->tokens = mem_array(h->n, sizeof *p->tokens, "vocabulary");
    p->types = mem_array(h->n, 1, "token types");
    fill_holes(h, p->types);
    p->added = mem_array(h->n_added + 1, sizeof *p->added, "added tokens");
    for (size_t i = 0; i < h->n; i++) {
        p->tokens[i] = span_of(h, h->token[i]);
        if (r->kind != TOKENIZER_BPE && h->byte_fallback && byte_token_value(p->tokens[i]) >= 0) p->types[i] = TOKEN_BYTE;
    }
    for (size_t i = 0; i < h->n_added; i++) {
        const struct hf_added *a = &h->added[i];
        p->types[a->id] = a->special ? TOKEN_CONTROL : TOKEN_USER;
        p->added[i] = (struct added_token){span_of(h, a->text), (int32_t)a->id, a->special, a->lstrip, a->rstrip,
                                            a->normalized, a->single_word};
    }
    p->merges = mem_array(h->n_merges, sizeof *p->merges, "merges");
    p->merge_right = mem_array(h->n_merges, sizeof *p->merges, "merges");
    for (size_t i = 0; i < h->n_merges; i++) {
        p->merges[i] = span_of(h, h->merge[2 * i]);
        p->merge_right[i] = span_of(h, h->merge[2 * i + 1]);
    }
    r->eot = r->eom = -1;
    if (!special_id(h, h->unknown_text, "unknown", &r->unknown, err) ||
        !special_id(h, h->bos.at != SIZE_MAX ? h->bos : c->bos, "BOS", &r->bos, err) ||
        !special_id(h, h->eos.at != SIZE_MAX ? h->eos : c->eos, "EOS", &r->eos, err))
        return false;
    if (h->unigram && !recipe_unigram(h, n_scored, p, r, err)) return false;
    if (r->unknown >= 0 && r->kind != TOKENIZER_BPE) p->types[r->unknown] = TOKEN_UNKNOWN;
    r->adds_bos = h->has_template ? h->bos.at != SIZE_MAX : c->adds_bos;
    r->adds_eos = h->has_template ? h->eos.at != SIZE_MAX : c->adds_eos;
    r->tokens = p->tokens;
    r->types = p->types;
    r->by_rules = r->kind == TOKENIZER_SPM;
    r->merges = p->merges;
    r->merge_right = p->merge_right;
    r->n_merges = h->n_merges;
    r->added = p->added;
    r->n_added = h->n_added;
    r->stage = h->stage;
    recipe_normalizers(h, p, r);
    r->splits_words = h->splits_words;
    r->ignores_merges = h->ignores_merges;
    r->fuses_unknown = h->fuse_unknown;
    r->prefix = h->metaspace ? h->metaspace_prefix : h->prepends ? PREFIX_ALWAYS : PREFIX_NEVER;
    r->space_prefix = r->prefix != PREFIX_NEVER;
    r->metaspace = h->metaspace;
    r->splits_spaces = h->metaspace && h->metaspace_splits;
    return true;
}

// The name that GGUF files have for these stages; "custom" when there is none (then lehr.tokenizer.stages says it).
static struct span pre_name(const struct hf *h) {
    for (size_t i = 0; pretokenizer_row(i); i++) {
        const struct pretokenizer *row = pretokenizer_row(i);
        bool nfc = h->n_steps == 1 && h->step[0].kind == NORMALIZE_NFC;
        if (h->n_steps && !nfc) break;
        bool same = !(row->flags & PRE_WHOLE) == !h->ignores_merges && !(row->flags & PRE_NFC) == !nfc;
        if (same && !memcmp(row->stage, h->stage, sizeof h->stage)) return (struct span){row->names, strcspn(row->names, " ")};
    }
    return (struct span){"custom", 6};
}

struct tokenizer *tokenizer_from_json(const char *json_path, const char *config_path, struct err *err) {
    struct file_map m;
    if (!file_map_open(&m, json_path, err)) return NULL;
    struct hf h = {.file_bytes = m.size, .unknown_text = nowhere, .unknown_id = -1, .bos = nowhere, .eos = nowhere,
                   .charsmap = nowhere};
    h.key = mem_alloc(KEY_MAX, "a key");
    struct json j;
    json_open(&j, (const char *)m.data, m.size);
    struct hf_config c;
    struct hf_recipe p = {0};
    struct recipe r = {0};
    struct tokenizer *t = NULL;
    if (read_file(&h, &j, err)) {
        bool good = read_config(&h, config_path, &c, err) && hf_recipe_make(&h, &c, &p, &r, err);
        if (good) {
            r.pre = pre_name(&h);
            t = tokenizer_make(&r, err);
        }
    }
    if (!t) err_in(err, "%s", json_path);
    mem_free(p.tokens);
    mem_free(p.merges);
    mem_free(p.merge_right);
    mem_free(p.types);
    mem_free(p.added);
    mem_free(p.logp);
    hf_free(&h);
    file_map_close(&m);
    return t;
}
