// load.c: tokenizers out of files and into them.
//
//   GGUF          tokenizer.ggml.model = "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE),
//   or "t5" (Unigram), .pre, .tokens, .scores,
//                 .token_type, .merges, .{bos,eos,eot,unknown}_token_id, .add_bos_token,
//                 .add_space_prefix, .remove_extra_whitespaces, .precompiled_charsmap
//   tokenizer.bin llama2.c:  i32 longest | per token: f32 score, i32 length, bytes (little-endian)
//                 id 0 unknown, 1 BOS, 2 EOS, 3..258 the bytes "<0x00>".."<0xFF>"; spaces stand as
//                 spaces
//   "byte"        256 bytes and an end token; in GGUF a BPE without merges, with lehr.tokenizer =
//   "byte" beside it
//
// Whatever a kind or pre-tokenizer is not known is refused by its name: a near miss would give
// wrong ids silently.
#include "tokenizer/internal.h"

#include <string.h>

#define EXTRA_FACTS 9
#define OLD_FACTS 6 // that files of the first days have
#define END_OF_TEXT "<|endoftext|>"

// ---- GGUF

// What was read for a recipe; freed after making.
struct parts {
    struct span *tokens, *merges;
    unsigned char *types;
    float *scores;
    struct added_token *added;
    const struct splitter *stage[STAGES_MAX];
    struct normalize_step step[STEPS_MAX];
    char *charsmap;
    double *logp;
};

static void parts_free(struct parts *p) {
    mem_free(p->charsmap);
    mem_free(p->logp);
    mem_free(p->tokens);
    mem_free(p->merges);
    mem_free(p->types);
    mem_free(p->scores);
    mem_free(p->added);
}

static bool read_texts(const struct model_file *f, const char *key, struct span **texts, size_t *n,
                       struct err *err) {
    struct meta_array a;
    if (!meta_array_open(f, key, META_TEXT, &a, err)) return false;
    *n = (size_t)a.count;
    *texts = mem_array(*n, sizeof **texts, "vocabulary");
    for (size_t i = 0; i < *n; i++)
        if (!meta_next_text(&a, &(*texts)[i]))
            return err_set(err, "%s ends after %zu of %zu texts", key, i, *n);
    return true;
}

static bool same_count(const char *key, uint64_t count, size_t n, struct err *err) {
    return count == n ||
           err_set(err, "%s has %llu entries for %zu tokens", key, (unsigned long long)count, n);
}

static bool read_types(const struct model_file *f, size_t n, unsigned char **types,
                       struct err *err) {
    const char *key = "tokenizer.ggml.token_type";
    struct meta_array a;
    if (meta_kind(f, key) == META_ABSENT) return true;
    if (!meta_array_open(f, key, META_INT, &a, err) || !same_count(key, a.count, n, err))
        return false;
    *types = mem_array(n, 1, "token types");
    int64_t type;
    for (size_t i = 0; i < n && meta_next_int(&a, &type); i++) {
        if (type < 0 || type > TOKEN_BYTE)
            return err_set(err, "token %zu has type %lld, known are 1 to %d", i, (long long)type,
                           TOKEN_BYTE);
        (*types)[i] = (unsigned char)type;
    }
    return true;
}

static bool read_scores(const struct model_file *f, size_t n, float **scores, struct err *err) {
    const char *key = "tokenizer.ggml.scores";
    struct meta_array a;
    if (!meta_array_open(f, key, META_REAL, &a, err) || !same_count(key, a.count, n, err))
        return false;
    *scores = mem_array(n, sizeof **scores, "token scores");
    double score;
    for (size_t i = 0; i < n && meta_next_real(&a, &score); i++) (*scores)[i] = (float)score;
    return true;
}

// Special ids. Files of "llama" may leave them out: then 0, 1, 2 are meant, if those tokens are
// what they should be.
static bool read_special(const struct model_file *f, struct recipe *r, struct err *err) {
    r->bos = r->eos = r->eot = r->eom = r->unknown = -1;
    if (r->kind == TOKENIZER_SPM && !r->splits_lines && r->types && r->n > 2) {
        if (r->types[0] == TOKEN_UNKNOWN) r->unknown = 0;
        if (r->types[1] == TOKEN_CONTROL) r->bos = 1;
        if (r->types[2] == TOKEN_CONTROL) r->eos = 2;
    }
    bool ours = meta_kind(f, "lehr.tokenizer.facts") != META_ABSENT; // says all there is
    if (r->kind == TOKENIZER_UNIGRAM && !ours && r->types && r->n > 2) {
        if (r->types[1] == TOKEN_CONTROL) r->eos = 1;
        if (r->types[2] == TOKEN_UNKNOWN) r->unknown = 2;
    }
    const struct {
        const char *key;
        int64_t *to;
    } ids[] = {{"tokenizer.ggml.bos_token_id", &r->bos},
               {"tokenizer.ggml.eos_token_id", &r->eos},
               {"tokenizer.ggml.eot_token_id", &r->eot},
               {"tokenizer.ggml.eom_token_id", &r->eom},
               {"tokenizer.ggml.unknown_token_id", &r->unknown}};
    for (size_t i = 0; i < COUNT_OF(ids); i++)
        if (!meta_int(f, ids[i].key, false, 0, (int64_t)r->n - 1, ids[i].to, err)) return false;
    r->space_prefix = r->kind == TOKENIZER_SPM && !r->splits_lines;
    if (r->kind == TOKENIZER_SPM) r->adds_bos = !r->splits_lines;
    if (r->kind == TOKENIZER_UNIGRAM) r->adds_eos = true;
    return meta_bool(f, "tokenizer.ggml.add_bos_token", false, &r->adds_bos, err) &&
           meta_bool(f, "tokenizer.ggml.add_eos_token", false, &r->adds_eos, err) &&
           meta_bool(f, "tokenizer.ggml.add_space_prefix", false, &r->space_prefix, err);
}

void tokenizer_list_pre(struct text *out) {
    for (size_t i = 0; pretokenizer_row(i); i++) text_fmt(out, "%s\n", pretokenizer_row(i)->names);
}

// The pre-tokenizer of that name into the recipe.
static bool read_pre(struct recipe *r, struct span name, struct err *err) {
    const struct pretokenizer *row = name.n ? pretokenizer_find(name.p, name.n) : NULL;
    if (row) {
        r->stage = row->stage;
        r->pre = name;
        r->nfc = row->flags & PRE_NFC;
        r->ignores_merges = row->flags & PRE_WHOLE;
        r->adds_bos = row->flags & PRE_BOS;
        return true;
    }
    struct text known = {0};
    for (size_t i = 0; pretokenizer_row(i); i++) { // the first name of each; all of them would not fit
        const char *names = pretokenizer_row(i)->names;
        text_fmt(&known, "%s%.*s", i ? ", " : "", (int)strcspn(names, " "), names);
    }
    if (name.n)
        err_set(err, "the pre-tokenizer \"%.*s\" is not known, and another would give wrong tokens silently; known are %s; "
                     "--tokenizer-pre NAME overrides", name.n < 60 ? (int)name.n : 60, name.p, known.data);
    else
        err_set(err, "the file does not name its pre-tokenizer (tokenizer.ggml.pre): say which by --tokenizer-pre NAME; "
                     "known are %s", known.data);
    text_free(&known);
    return false;
}

static bool read_kind(const struct model_file *f, const char *override, struct recipe *r, struct err *err) {
    struct span model, pre = {"", 0}, ours = {"", 0};
    if (!meta_text(f, "tokenizer.ggml.model", true, &model, err) ||
        !meta_text(f, "tokenizer.ggml.pre", false, &pre, err) ||
        !meta_text(f, "lehr.tokenizer", false, &ours, err))
        return false;
    if (override) pre = (struct span){override, strlen(override)};
    if (span_is(model, "llama")) {
        r->kind = TOKENIZER_SPM;
        return !override || err_set(err, "a SentencePiece tokenizer has no pre-tokenizer: leave --tokenizer-pre out");
    }
    if (span_is(model, "t5")) {
        r->kind = TOKENIZER_UNIGRAM;
        return !override || err_set(err, "a Unigram tokenizer has no pre-tokenizer: leave --tokenizer-pre out");
    }
    if (span_is(model, "gemma4") || (span_is(model, "gpt2") && span_is(pre, "gemma4"))) {
        r->kind = TOKENIZER_SPM; // merges by rules, over characters
        r->by_rules = r->splits_lines = true;
        return true;
    }
    int shown = model.n < 60 ? (int)model.n : 60;
    if (!span_is(model, "gpt2"))
        return err_set(err, "expected a tokenizer of model \"gpt2\", \"llama\", \"t5\" or \"gemma4\", found \"%.*s\"", shown, model.p);
    r->kind = span_is(ours, "byte") ? TOKENIZER_BYTE : TOKENIZER_BPE;
    if (!override && span_is(pre, "custom") && meta_kind(f, "lehr.tokenizer.stages") != META_ABSENT) {
        r->pre = pre;
        return true;
    }
    return read_pre(r, pre, err);
}

// The precompiled map of characters, an array of i8 or u8.
static bool read_charsmap(const struct model_file *f, struct recipe *r, struct parts *p, struct err *err) {
    const char *key = "tokenizer.ggml.precompiled_charsmap";
    struct meta_array a;
    int64_t byte;
    if (meta_kind(f, key) == META_ABSENT) return true;
    if (!meta_array_open(f, key, META_INT, &a, err)) return false;
    p->charsmap = mem_alloc((size_t)a.count, "map of characters");
    size_t n = 0;
    while (meta_next_int(&a, &byte)) p->charsmap[n++] = (char)byte;
    r->charsmap = (struct span){p->charsmap, n};
    return true;
}

// SentencePiece's normalization by the keys that llama.cpp goes by.
static bool read_unigram_steps(const struct model_file *f, struct recipe *r, struct parts *p, struct err *err) {
    bool merges = false;
    if (!meta_bool(f, "tokenizer.ggml.remove_extra_whitespaces", false, &merges, err)) return false;
    p->step[0] = (struct normalize_step){.kind = NORMALIZE_LONGEST};
    p->step[1] = (struct normalize_step){.kind = NORMALIZE_SPACES,
                                         .flags = (r->space_prefix ? SPACES_PREFIX : 0) | (merges ? SPACES_MERGE : 0)};
    r->step = p->step;
    r->n_steps = 2;
    return true;
}

// Steps as write_extras keeps them: name, flags, from, to.
static bool read_steps(const struct model_file *f, struct recipe *r, struct parts *p, struct err *err) {
    const char *key = "lehr.tokenizer.normalizers";
    struct meta_array a;
    struct span word[4];
    if (meta_kind(f, key) == META_ABSENT) return true;
    if (!meta_array_open(f, key, META_TEXT, &a, err)) return false;
    r->nfc = false;
    r->step = p->step;
    for (; meta_next_text(&a, &word[0]); r->n_steps++) {
        for (int i = 1; i < 4; i++)
            if (!meta_next_text(&a, &word[i])) return err_set(err, "%s ends inside a step", key);
        struct normalize_step *s = &p->step[r->n_steps];
        if (r->n_steps == STEPS_MAX || !normalize_find(word[0], &s->kind) || word[1].n != 1)
            return err_set(err, "%s has \"%.*s\"", key, word[0].n < 60 ? (int)word[0].n : 60, word[0].p);
        s->flags = (unsigned)(word[1].p[0] & 3);
        s->from = word[2];
        s->to = word[3];
    }
    return true;
}

// Log probabilities beyond the precision of the scores, as bits of doubles, low half first.
static bool read_logp(const struct model_file *f, struct recipe *r, struct parts *p, struct err *err) {
    const char *key = "lehr.tokenizer.logp";
    struct meta_array a;
    int64_t half[2];
    if (meta_kind(f, key) == META_ABSENT) return true;
    if (!meta_array_open(f, key, META_INT, &a, err) || !same_count(key, a.count, 2 * r->n, err)) return false;
    p->logp = mem_array(r->n, sizeof *p->logp, "log probabilities");
    for (size_t i = 0; i < r->n && meta_next_int(&a, &half[0]) && meta_next_int(&a, &half[1]); i++) {
        uint64_t bits = (uint64_t)(uint32_t)half[1] << 32 | (uint32_t)half[0];
        memcpy(&p->logp[i], &bits, sizeof bits);
    }
    r->logp = p->logp;
    return true;
}

// What write_extras keeps.
static bool read_extras(const struct model_file *f, struct recipe *r, struct parts *p, struct err *err) {
    struct meta_array a;
    int64_t fact[EXTRA_FACTS] = {0}, id, flags;
    if (!meta_array_open(f, "lehr.tokenizer.facts", META_INT, &a, err)) return false;
    for (size_t i = 0; i < EXTRA_FACTS; i++)
        if (!meta_next_int(&a, &fact[i]) && i < OLD_FACTS) return err_set(err, "lehr.tokenizer.facts is too short");
    r->nfc = fact[0];
    r->ignores_merges = fact[1];
    r->metaspace = fact[2];
    r->splits_spaces = fact[3];
    r->fuses_unknown = fact[4];
    r->prefix = fact[5] == PREFIX_FIRST ? PREFIX_FIRST : fact[5] == PREFIX_ALWAYS ? PREFIX_ALWAYS : PREFIX_NEVER;
    r->falls_back = fact[6];
    r->splits_words = fact[7];
    if (fact[8] < 0 || (uint64_t)fact[8] > r->n)
        return err_set(err, "lehr.tokenizer.facts scores %lld of %zu tokens", (long long)fact[8], r->n);
    r->n_scored = (size_t)fact[8];
    if (!read_steps(f, r, p, err) || !read_logp(f, r, p, err)) return false;
    if (!meta_array_open(f, "lehr.tokenizer.added", META_INT, &a, err)) return false;
    p->added = mem_array((size_t)a.count / 2 + 1, sizeof *p->added, "added tokens");
    while (meta_next_int(&a, &id) && meta_next_int(&a, &flags)) {
        if (id < 0 || (uint64_t)id >= r->n) return err_set(err, "lehr.tokenizer.added names token %lld", (long long)id);
        p->added[r->n_added++] = (struct added_token){r->tokens[id], (int32_t)id, flags & ADDED_SPECIAL, flags & ADDED_LSTRIP,
                                                      flags & ADDED_RSTRIP, flags & ADDED_NORMALIZED, flags & ADDED_SINGLE_WORD};
    }
    r->added = p->added;
    if (!meta_array_open(f, "lehr.tokenizer.stages", META_TEXT, &a, err)) return false;
    struct span name;
    for (size_t i = 0; meta_next_text(&a, &name); i++) {
        if (i == STAGES_MAX || !(p->stage[i] = splitter_find(name.p, name.n)))
            return err_set(err, "lehr.tokenizer.stages has \"%.*s\"", name.n < 60 ? (int)name.n : 60, name.p);
    }
    r->stage = p->stage;
    return true;
}

static bool read_recipe(const struct model_file *f, const char *pre, struct recipe *r,
                        struct parts *p, struct err *err) {
    if (!read_kind(f, pre, r, err) ||
        !read_texts(f, "tokenizer.ggml.tokens", &p->tokens, &r->n, err) ||
        !read_types(f, r->n, &p->types, err))
        return false;
    r->tokens = p->tokens;
    r->types = p->types;
    if (r->n == 0) return err_set(err, "tokenizer.ggml.tokens is empty");
    if (!read_special(f, r, err)) return false;
    bool extras = meta_kind(f, "lehr.tokenizer.facts") != META_ABSENT && !pre;
    if (!read_charsmap(f, r, p, err)) return false;
    if (extras && !read_extras(f, r, p, err)) return false;
    if (!extras && r->kind == TOKENIZER_UNIGRAM && !read_unigram_steps(f, r, p, err)) return false;
    if (extras && r->kind == TOKENIZER_SPM) {
        r->by_rules = true;
        if (!read_texts(f, "lehr.tokenizer.merges", &p->merges, &r->n_merges, err)) return false;
        r->merges = p->merges;
        return true;
    }
    if ((r->kind == TOKENIZER_SPM && !r->by_rules) || r->kind == TOKENIZER_UNIGRAM) {
        if (!read_scores(f, r->n, &p->scores, err)) return false;
        r->scores = p->scores;
        return true;
    }
    if (!read_texts(f, "tokenizer.ggml.merges", &p->merges, &r->n_merges, err)) return false;
    r->merges = p->merges;
    if (r->kind == TOKENIZER_BYTE && (r->n_merges || r->n != 257))
        return err_set(err, "lehr.tokenizer says \"byte\", but there are %zu tokens and %zu merges",
                       r->n, r->n_merges);
    return true;
}

struct tokenizer *tokenizer_from_file(const struct model_file *f, struct err *err) {
    return tokenizer_from_file_as(f, NULL, err);
}

struct tokenizer *tokenizer_from_file_as(const struct model_file *f, const char *pre, struct err *err) {
    struct recipe r = {0};
    struct parts p = {0};
    struct tokenizer *t = read_recipe(f, pre, &r, &p, err) ? tokenizer_make(&r, err) : NULL;
    if (t && !tokenizer_take_ends(t, f, err)) {
        tokenizer_free(t);
        t = NULL;
    }
    if (!t) err_in(err, "%s: tokenizer", model_file_path(f));
    parts_free(&p);
    return t;
}

static void write_merges(const struct tokenizer *t, const char *key, struct gguf_out *o) {
    struct text lines = {0};
    size_t *ends = mem_array(t->n_rules, sizeof *ends, "merge lines");
    struct span *merges = mem_array(t->n_rules, sizeof *merges, "merge lines");
    for (size_t i = 0; i < t->n_rules; i++) {
        struct span left = t->token[t->rules[i].left], right = t->token[t->rules[i].right];
        text_add(&lines, left.p, left.n);
        text_add(&lines, " ", 1);
        text_add(&lines, right.p, right.n);
        ends[i] = lines.len;
    }
    for (size_t i = 0, from = 0; i < t->n_rules; from = ends[i++])
        merges[i] = (struct span){lines.data + from, ends[i] - from};
    gguf_out_texts(o, key, merges, t->n_rules);
    mem_free(merges);
    mem_free(ends);
    text_free(&lines);
}

// What a tokenizer.json says beyond the common keys, so that its tokenizer comes back whole. Other readers see the
// nearest thing: merges by score for SPM, and a pre-tokenizer called "custom", which they refuse, where none fits.
static void write_extras(const struct tokenizer *t, struct gguf_out *o) {
    const int32_t facts[] = {t->nfc, t->ignores_merges, t->metaspace, t->splits_spaces, t->fuses_unknown, (int32_t)t->prefix,
                             t->falls_back, t->splits_words, (int32_t)t->n_scored};
    static_assert(COUNT_OF(facts) == EXTRA_FACTS, "as read_extras has them");
    gguf_out_i32s(o, "lehr.tokenizer.facts", facts, COUNT_OF(facts));
    gguf_out_i32s(o, "lehr.tokenizer.added", t->added, 2 * t->n_added);
    struct span stages[STAGES_MAX];
    size_t n = 0;
    for (; n < STAGES_MAX && t->stage[n]; n++) stages[n] = (struct span){t->stage[n]->name, strlen(t->stage[n]->name)};
    gguf_out_texts(o, "lehr.tokenizer.stages", stages, n);
    if (t->by_rules) write_merges(t, "lehr.tokenizer.merges", o);
    struct span steps[4 * STEPS_MAX];
    char flags[STEPS_MAX];
    for (size_t i = 0; i < t->n_steps; i++) {
        const struct normalize_step *s = &t->step[i];
        flags[i] = (char)('0' + s->flags);
        steps[4 * i] = (struct span){normalize_name(s->kind), strlen(normalize_name(s->kind))};
        steps[4 * i + 1] = (struct span){&flags[i], 1};
        steps[4 * i + 2] = s->from;
        steps[4 * i + 3] = s->to;
    }
    if (t->n_steps && !t->nfc) gguf_out_texts(o, "lehr.tokenizer.normalizers", steps, 4 * t->n_steps);
}

// Scores of a Unigram model, its map, and how spaces are treated as far as the common keys can say it.
static void write_unigram(const struct tokenizer *t, struct gguf_out *o) {
    float *score = mem_array(t->n, sizeof *score, "token scores");
    int32_t *bits = mem_array(2 * t->n, sizeof *bits, "log probabilities");
    bool exact = true, merges = t->splits_words;
    for (size_t i = 0; i < t->n; i++) {
        uint64_t b;
        memcpy(&b, &t->unigram.logp[i], sizeof b);
        bits[2 * i] = (int32_t)(uint32_t)b;
        bits[2 * i + 1] = (int32_t)(uint32_t)(b >> 32);
        score[i] = t->score ? t->score[i] : (float)t->unigram.logp[i];
        exact = exact && (!t->n_scored || (double)score[i] == t->unigram.logp[i]);
    }
    gguf_out_f32s(o, "tokenizer.ggml.scores", score, t->n);
    if (!exact) gguf_out_i32s(o, "lehr.tokenizer.logp", bits, 2 * t->n);
    mem_free(score);
    mem_free(bits);
    for (size_t i = 0; i < t->n_steps; i++)
        merges |= t->step[i].kind == NORMALIZE_BLANKS || (t->step[i].kind == NORMALIZE_SPACES && (t->step[i].flags & SPACES_MERGE));
    gguf_out_bool(o, "tokenizer.ggml.remove_extra_whitespaces", merges);
    if (t->map_blob.len) gguf_out_u8s(o, "tokenizer.ggml.precompiled_charsmap", t->map_blob.data, t->map_blob.len);
}

// Scores that order merges nearly as the rules do: those of a token come together, the first rule counts.
static float *rule_scores(const struct tokenizer *t) {
    float *score = mem_array(t->n, sizeof *score, "token scores");
    for (size_t i = 0; i < t->n; i++) score[i] = -(float)(t->n_rules + 1);
    for (size_t i = t->n_rules; i-- > 0;) score[t->rules[i].result] = -(float)i;
    return score;
}

void tokenizer_write(const struct tokenizer *t, struct gguf_out *o) {
    bool spm = t->kind == TOKENIZER_SPM, unigram = t->kind == TOKENIZER_UNIGRAM;
    const char *model = t->splits_lines ? "gemma4" : spm ? "llama" : unigram ? "t5" : "gpt2";
    gguf_out_text(o, "tokenizer.ggml.model", model, strlen(model));
    if (spm || unigram)
        gguf_out_text(o, "tokenizer.ggml.pre", t->splits_lines ? "gemma4" : "default", t->splits_lines ? 6 : 7);
    else
        gguf_out_text(o, "tokenizer.ggml.pre", t->pre, strlen(t->pre));
    if (t->kind == TOKENIZER_BYTE) gguf_out_text(o, "lehr.tokenizer", "byte", 4);
    gguf_out_texts(o, "tokenizer.ggml.tokens", t->token, t->n);
    if (spm && !t->by_rules) gguf_out_f32s(o, "tokenizer.ggml.scores", t->score, t->n);
    if (t->by_rules) {
        float *scores = rule_scores(t);
        gguf_out_f32s(o, "tokenizer.ggml.scores", scores, t->n);
        mem_free(scores);
    }
    if (unigram) write_unigram(t, o);
    if (t->added) write_extras(t, o);
    int32_t *types = mem_array(t->n, sizeof *types, "token types");
    for (size_t i = 0; i < t->n; i++) types[i] = t->type[i];
    gguf_out_i32s(o, "tokenizer.ggml.token_type", types, t->n);
    mem_free(types);
    if ((!spm && !unigram) || t->splits_lines) write_merges(t, "tokenizer.ggml.merges", o);
    if (t->bos >= 0) gguf_out_u32(o, "tokenizer.ggml.bos_token_id", (uint32_t)t->bos);
    if (t->eos >= 0) gguf_out_u32(o, "tokenizer.ggml.eos_token_id", (uint32_t)t->eos);
    if (t->eot >= 0) gguf_out_u32(o, "tokenizer.ggml.eot_token_id", (uint32_t)t->eot);
    if (t->eom >= 0) gguf_out_u32(o, "tokenizer.ggml.eom_token_id", (uint32_t)t->eom);
    if (t->unknown >= 0) gguf_out_u32(o, "tokenizer.ggml.unknown_token_id", (uint32_t)t->unknown);
    gguf_out_bool(o, "tokenizer.ggml.add_bos_token", t->adds_bos);
    if (t->adds_eos || unigram) gguf_out_bool(o, "tokenizer.ggml.add_eos_token", t->adds_eos);
    gguf_out_bool(o, "tokenizer.ggml.add_space_prefix", t->space_prefix);
}

// ---- llama2.c

// Reads the token at *at; false at the end of the bytes.
static bool bin_token(const struct file_map *m, size_t *at, float *score, struct span *token) {
    uint32_t bits, length;
    if (m->size - *at < 8) return false;
    memcpy(&bits, m->data + *at, 4);
    memcpy(&length, m->data + *at + 4, 4);
    if (length > m->size - *at - 8) return false;
    memcpy(score, &bits, 4);
    *token = (struct span){(const char *)m->data + *at + 8, length};
    *at += 8 + length;
    return true;
}

static bool bin_read(const struct file_map *m, int64_t vocab, struct parts *p, size_t *n,
                     struct err *err) {
    size_t at = 4, most = m->size < 4 ? 0 : (m->size - 4) / 8; // every token has 8 bytes at least
    if (vocab >= 0 && (uint64_t)vocab < most) most = (size_t)vocab;
    p->tokens = mem_array(most, sizeof *p->tokens, "vocabulary");
    p->scores = mem_array(most, sizeof *p->scores, "token scores");
    for (*n = 0; *n < most && at < m->size && bin_token(m, &at, &p->scores[*n], &p->tokens[*n]);
         ++*n) {
    }
    if (vocab >= 0 && *n < (size_t)vocab)
        return err_set(err, "expected a llama2.c tokenizer of %lld tokens, found %zu in %zu bytes",
                       (long long)vocab, *n, m->size);
    if (m->size < 4 || at != m->size)
        return err_set(err,
                       "%zu bytes are left over after %zu tokens; is this the tokenizer of another "
                       "model, or no llama2.c tokenizer.bin?",
                       m->size < 4 ? m->size : m->size - at, *n);
    return true;
}

// The exporter spells BOS and EOS with line ends around them; others, and who types them, do not.
static struct span bin_control(struct span s) {
    bool lined = s.n > 2 && s.p[0] == '\n' && s.p[s.n - 1] == '\n';
    return lined ? (struct span){s.p + 1, s.n - 2} : s;
}

// The file has spaces as spaces; SPM has U+2581.
static void bin_mark_spaces(struct parts *p, size_t n, struct text *marked) {
    size_t *ends = mem_array(n, sizeof *ends, "vocabulary");
    for (size_t i = 0; i < n; i++) {
        if (i == 1 || i == 2) p->tokens[i] = bin_control(p->tokens[i]);
        for (size_t k = 0; k < p->tokens[i].n; k++) {
            char c = p->tokens[i].p[k];
            bool space = c == ' ' && i >= 3;
            text_add(marked, space ? "\xE2\x96\x81" : &c, space ? 3 : 1);
        }
        ends[i] = marked->len;
    }
    for (size_t i = 0, from = 0; i < n; from = ends[i++])
        p->tokens[i] = (struct span){marked->data ? marked->data + from : "", ends[i] - from};
    mem_free(ends);
}

static bool bin_recipe(struct recipe *r, struct parts *p, struct err *err) {
    if (r->n < 259)
        return err_set(
            err, "expected at least 259 tokens (3 special ones and 256 bytes), found %zu", r->n);
    p->types = mem_array(r->n, 1, "token types");
    memset(p->types, TOKEN_NORMAL, r->n);
    p->types[0] = TOKEN_UNKNOWN;
    p->types[1] = p->types[2] = TOKEN_CONTROL;
    for (size_t i = 3; i < 259; i++) {
        if (byte_token_value(p->tokens[i]) != (int)i - 3)
            return err_set(err, "expected token %zu to be the byte <0x%02zX>, found \"%.*s\"", i,
                           i - 3, p->tokens[i].n < 60 ? (int)p->tokens[i].n : 60, p->tokens[i].p);
        p->types[i] = TOKEN_BYTE;
    }
    *r = (struct recipe){.kind = TOKENIZER_SPM,
                         .tokens = p->tokens,
                         .types = p->types,
                         .scores = p->scores,
                         .n = r->n,
                         .unknown = 0,
                         .bos = 1,
                         .eos = 2,
                         .eot = -1,
                         .eom = -1,
                         .adds_bos = true,
                         .space_prefix = true};
    return true;
}

struct tokenizer *tokenizer_from_llama2c(const char *path, int64_t vocab, struct err *err) {
    struct file_map m;
    if (!file_map_open(&m, path, err)) return NULL;
    struct recipe r = {0};
    struct parts p = {0};
    struct text marked = {0};
    struct tokenizer *t = NULL;
    bool good = bin_read(&m, vocab, &p, &r.n, err);
    if (good) bin_mark_spaces(&p, r.n, &marked);
    if (good && bin_recipe(&r, &p, err)) t = tokenizer_make(&r, err);
    if (!t) err_in(err, "%s", path);
    text_free(&marked);
    parts_free(&p);
    file_map_close(&m);
    return t;
}

// ---- by name

struct tokenizer *tokenizer_byte(void) {
    struct text spellings = {0};
    struct span tokens[257];
    unsigned char types[257];
    size_t ends[257];
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        bytes_spell(&byte, 1, &spellings);
        ends[i] = spellings.len;
    }
    for (size_t i = 0, from = 0; i < 256; from = ends[i++])
        tokens[i] = (struct span){spellings.data + from, ends[i] - from};
    tokens[256] = (struct span){END_OF_TEXT, sizeof END_OF_TEXT - 1};
    memset(types, TOKEN_NORMAL, 256);
    types[256] = TOKEN_CONTROL;
    struct recipe r = {.kind = TOKENIZER_BYTE,
                       .tokens = tokens,
                       .types = types,
                       .n = 257,
                       .bos = 256,
                       .eos = 256,
                       .eot = -1,
                       .eom = -1,
                       .unknown = -1,
                       .adds_bos = true};
    struct tokenizer *t = tokenizer_make(&r, NULL);
    assert(t);
    text_free(&spellings);
    return t;
}

// What a file begins with, so that a wrong one is called by its name.
static bool look_at(const char *path, struct err *err, bool *gguf, bool *json) {
    struct file_map m;
    if (!file_map_open(&m, path, err)) return false;
    *gguf = m.size >= 4 && !memcmp(m.data, "GGUF", 4);
    *json = m.size > 1 && m.data[0] == '{' && m.data[1]; // a tokenizer.bin may begin with the number 123
    file_map_close(&m);
    return true;
}

// A tokenizer.json, with the tokenizer_config.json beside it if there is one.
static struct tokenizer *open_json(const char *path, struct err *err) {
    const char *slash = strrchr(path, '/');
    struct text config = {0};
    text_add(&config, path, slash ? (size_t)(slash - path) + 1 : 0);
    text_str(&config, "tokenizer_config.json");
    struct tokenizer *t = tokenizer_from_json(path, file_exists(config.data) ? config.data : NULL, err);
    text_free(&config);
    return t;
}

struct tokenizer *tokenizer_of_model(const struct model_file *f, const char *pre, struct err *err) {
    struct span json = {0};
    struct text path = {0};
    if (!meta_text(f, "lehr.tokenizer_json", false, &json, err)) return NULL;
    if (!json.n) return tokenizer_from_file_as(f, pre, err);
    text_add(&path, json.p, json.n);
    struct tokenizer *t = open_json(path.data, err);
    text_free(&path);
    if (t && tokenizer_take_ends(t, f, err)) return t;
    tokenizer_free(t);
    return NULL;
}

struct tokenizer *tokenizer_open(const char *what, int64_t vocab, struct err *err) {
    if (!strcmp(what, "byte")) return tokenizer_byte();
    bool gguf = false, json = false;
    if (!look_at(what, err, &gguf, &json)) return NULL;
    if (json) return open_json(what, err);
    if (!gguf) return tokenizer_from_llama2c(what, vocab, err);
    struct model_file *f = model_file_open(what, err);
    if (!f) return NULL;
    struct tokenizer *t = tokenizer_from_file(f, err);
    model_file_close(f);
    return t;
}
