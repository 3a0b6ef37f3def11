// part.c: a part of a vocabulary as a tokenizer of its own, for a small model that guesses what a large one says.
//
// What a token is merged from has to be kept with it, or no text would ever come to it. With that, a text whose tokens
// are all kept has the same tokens in the part: a merge that is there in both is made in both, since the one that would come before
// it in the whole leads to a token that is not kept (by induction over the merges, each of which has its parts and its rank as
// before). A text with other tokens comes out in smaller ones, down to single bytes, which are always kept. Scores of
// SentencePiece and Unigram stay as they are; the order of tokens, too.
#include "tokenizer/internal.h"

#include <string.h>

// ---- what is kept

static size_t keep_one(int32_t id, bool *keep) {
    if (id < 0 || keep[id]) return 0;
    keep[id] = true;
    return 1;
}

// Control tokens beyond these are what a vocabulary holds in reserve.
enum { CONTROL_MOST = 64 };

size_t tokenizer_part_least(const struct tokenizer *t, bool *keep) {
    const int32_t named[] = {t->bos, t->eos, t->eot, t->eom, t->unknown};
    size_t n = 0, controls = 0;
    for (size_t i = 0; i < COUNT_OF(named); i++) n += keep_one(named[i], keep);
    for (int i = 0; i < 256; i++) n += keep_one(t->byte_id[i], keep);
    for (size_t i = 0; i < t->n; i++) controls += t->type[i] == TOKEN_CONTROL;
    for (size_t i = 0; i < t->n && controls <= CONTROL_MOST; i++)
        if (t->type[i] == TOKEN_CONTROL) n += keep_one((int32_t)i, keep);
    return n;
}

// The symbols that merging the token begins with; none where it does not come from merging.
static size_t first_symbols(const struct tokenizer *t, int32_t id, struct span *text, struct symbol *to) {
    const bool marked = marks_spaces(t);
    size_t count = 0;
    *text = marked ? t->token[id] : t->piece[id];
    if (t->kind == TOKENIZER_UNIGRAM || t->type[id] != TOKEN_NORMAL) return 0;
    for (size_t at = 0, n; at < text->n; at += n) {
        uint32_t code;
        n = marked ? utf8_decode(text->p + at, text->n - at, &code) : 1;
        const int32_t symbol = marked ? tokenizer_find(t, text->p + at, n) : t->byte_id[(unsigned char)text->p[at]];
        to[count++] = (struct symbol){.start = (uint32_t)at, .size = (uint32_t)n, .id = symbol};
    }
    return count;
}

size_t tokenizer_part_add(const struct tokenizer *t, int32_t id, bool *keep) {
    if (keep[id]) return 0;
    struct span text;
    struct symbol *s = mem_array(t->token[id].n + t->piece[id].n + 1, sizeof *s, "symbols of a token");
    size_t count = first_symbols(t, id, &text, s), n = keep_one(id, keep);
    const bool by_rules = t->kind != TOKENIZER_SPM || t->by_rules;
    for (size_t i = 0; i < count; i++) n += keep_one(s[i].id, keep);
    while (count > 1) { // as in bpe.c: the lowest rank, the leftmost among equals
        size_t best = count;
        uint32_t lowest = 0, rank;
        int32_t whole = -1, found;
        for (size_t i = 0; i + 1 < count; i++) {
            const bool merges = by_rules ? s[i].id >= 0 && s[i + 1].id >= 0 && bpe_merge(t, s[i].id, s[i + 1].id, &rank, &found)
                                         : spm_merge(t, text.p + s[i].start, s[i].size + s[i + 1].size, &rank, &found);
            if (merges && (best == count || rank < lowest)) best = i, lowest = rank, whole = found;
        }
        if (best == count) break;
        s[best].size += s[best + 1].size, s[best].id = whole;
        memmove(s + best + 1, s + best + 2, (count - best - 2) * sizeof *s);
        count--;
        n += keep_one(whole, keep);
    }
    mem_free(s);
    return n;
}

// ---- the tokenizer of them

struct part {
    int32_t *to; // [n] of the whole
    struct span *tokens, *left, *right;
    unsigned char *types;
    float *scores;
    double *logp;
    struct added_token *added;
};

static void take_tokens(const struct tokenizer *t, const bool *keep, struct part *p, struct recipe *r) {
    for (size_t i = 0; i < t->n; i++) {
        p->to[i] = keep[i] ? (int32_t)r->n : -1;
        if (!keep[i]) continue;
        p->tokens[r->n] = t->token[i];
        p->types[r->n] = t->type[i];
        if (p->scores) p->scores[r->n] = t->score[i];
        if (p->logp) p->logp[r->n] = t->unigram.logp[i];
        if (i < t->n_scored) r->n_scored++;
        r->n++;
    }
}

static void take_rules(const struct tokenizer *t, struct part *p, struct recipe *r) {
    for (size_t i = 0; i < t->n_rules; i++) {
        const struct merge_rule *m = &t->rules[i];
        if (p->to[m->left] < 0 || p->to[m->right] < 0 || p->to[m->result] < 0) continue;
        p->left[r->n_merges] = t->token[m->left];
        p->right[r->n_merges++] = t->token[m->right];
    }
}

static void take_added(const struct tokenizer *t, struct part *p, struct recipe *r) {
    for (size_t i = 0; i < t->n_added; i++) {
        const int32_t id = p->to[t->added[2 * i]], flags = t->added[2 * i + 1];
        if (id < 0) continue;
        p->added[r->n_added++] = (struct added_token){p->tokens[id], id, flags & ADDED_SPECIAL, flags & ADDED_LSTRIP, flags & ADDED_RSTRIP,
                                                      flags & ADDED_NORMALIZED, flags & ADDED_SINGLE_WORD};
    }
}

static int64_t place_of(const struct part *p, int32_t id) { return id < 0 ? -1 : p->to[id]; }

struct tokenizer *tokenizer_part(const struct tokenizer *t, const bool *keep, struct err *err) {
    struct part p = {.to = mem_array(t->n, sizeof *p.to, "part of a vocabulary"), .tokens = mem_array(t->n, sizeof *p.tokens, "part of a vocabulary"),
                     .types = mem_array(t->n, 1, "part of a vocabulary"), .left = mem_array(t->n_rules + 1, sizeof *p.left, "merges of a part"),
                     .right = mem_array(t->n_rules + 1, sizeof *p.right, "merges of a part"),
                     .added = mem_array(t->n_added + 1, sizeof *p.added, "added tokens of a part")};
    if (t->score) p.scores = mem_array(t->n, sizeof *p.scores, "scores of a part");
    if (t->kind == TOKENIZER_UNIGRAM) p.logp = mem_array(t->n, sizeof *p.logp, "scores of a part");
    struct recipe r = {.kind = t->kind, .tokens = p.tokens, .types = p.types, .scores = p.scores, .logp = p.logp,
                       .adds_bos = t->adds_bos, .adds_eos = t->adds_eos, .space_prefix = t->space_prefix, .ignores_merges = t->ignores_merges,
                       .step = t->step, .n_steps = t->n_steps, .charsmap = {t->map_blob.data, t->map_blob.len},
                       .falls_back = t->falls_back, .splits_words = t->splits_words, .splits_lines = t->splits_lines, .by_rules = t->by_rules,
                       .metaspace = t->metaspace, .splits_spaces = t->splits_spaces, .fuses_unknown = t->fuses_unknown, .prefix = t->prefix};
    take_tokens(t, keep, &p, &r);
    take_rules(t, &p, &r);
    take_added(t, &p, &r);
    if (r.n_merges) r.merges = p.left, r.merge_right = p.right;
    if (t->added) r.added = p.added;
    if (t->kind == TOKENIZER_BPE) r.stage = t->stage, r.pre = (struct span){t->pre, strlen(t->pre)};
    r.bos = place_of(&p, t->bos), r.eos = place_of(&p, t->eos), r.eot = place_of(&p, t->eot), r.eom = place_of(&p, t->eom);
    r.unknown = place_of(&p, t->unknown);
    struct tokenizer *made = tokenizer_make(&r, err);
    mem_free(p.to);
    mem_free(p.tokens);
    mem_free(p.types);
    mem_free(p.left);
    mem_free(p.right);
    mem_free(p.scores);
    mem_free(p.logp);
    mem_free(p.added);
    return made;
}
