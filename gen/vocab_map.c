// vocab_map.c: which tokens of two vocabularies are the same.
//
// By what they stand for, never by number. A token is one of
//     text      its bytes in text: "\u2581the" of SentencePiece and GPT-2's spelling of " the" are both " the"
//     byte      <0x41> of SentencePiece; one byte, and where the other side has no such token, its text token of that byte
//     control   its spelling; failing that its role: what begins a text, ends it, or ends a turn
//     nothing   unused, or padding up to a round number of rows: the same as no other
// Spellings such as "<|user|>" are control in one file and user-defined in another: the same too. "<s>" is not: in one
// vocabulary it begins a text, in another it is markup.
//
// Several ids may have the same bytes. One that is spelled alike comes first (so that a vocabulary maps onto itself), then
// the lowest. Read goes any id of the target that has a twin; guessed is each id by one of the draft at most, the best, so that
// a distribution of the draft, carried over, has every id once.
//
// The space that SentencePiece writes in front of a text belongs to the text's beginning, not to a token: pieces are compared
// as they stand inside a text, and what is spelled out for the draft goes on from what it has read. A text of the draft begins
// as its own texts do, with BOS where it adds one.
//
// A map takes 2 ms for 49 thousand tokens of one vocabulary, 0.2 s for 262 thousand of unlike ones (2026-11), once.
#include "gen/spec.h"

#include <string.h>

enum sort { SORT_NOTHING, SORT_TEXT, SORT_BYTE, SORT_CONTROL };
struct token {
    enum sort sort;
    struct span is; // bytes of text, or the spelling
};

static bool is_padding(struct span s, int32_t id) { // as converters write it
    char name[32];
    if (s.n < 6 || s.p[1] != 'P') return false; // quickly, for nearly all
    snprintf(name, sizeof name, "[PAD%d]", id);
    return span_is(s, name);
}

static struct token token_of(const struct tokenizer *t, int32_t id) {
    static const enum sort sorts[] = {[TOKEN_NORMAL] = SORT_TEXT,     [TOKEN_USER] = SORT_TEXT,    [TOKEN_BYTE] = SORT_BYTE,
                                      [TOKEN_UNKNOWN] = SORT_CONTROL, [TOKEN_CONTROL] = SORT_CONTROL, [TOKEN_UNUSED] = SORT_NOTHING};
    struct token k = {sorts[tokenizer_type(t, id)], tokenizer_piece(t, id)};
    if (k.sort == SORT_CONTROL) k.is = tokenizer_token(t, id);
    if (!k.is.n || is_padding(tokenizer_token(t, id), id)) k.sort = SORT_NOTHING;
    return k;
}

// "<|user|>", and with the wide bars of DeepSeek.
static bool is_mark(struct span s) {
    return s.n > 4 && s.p[0] == '<' && (s.p[1] == '|' || !memcmp(s.p + 1, "\xEF\xBD\x9C", 3)) && s.p[s.n - 1] == '>';
}

static bool same_bytes(struct span a, struct span b) { return a.n == b.n && !memcmp(a.p, b.p, a.n); }
static bool same_token(struct token a, struct token b) { return a.sort == b.sort && same_bytes(a.is, b.is); }
static bool is_text(struct token k) { return k.sort == SORT_TEXT || k.sort == SORT_BYTE; }

// Text tokens of the draft by their bytes, the lowest id of each, in a table with open addressing; made when first asked.
struct finder {
    const struct tokenizer *draft, *target;
    int32_t *slot; // id + 1, 0: empty
    size_t mask;
};

// The slot of a token with these bytes, or the empty one where it belongs.
static int32_t *slot_of(const struct finder *f, struct token k) {
    for (size_t at = (size_t)hash_bytes(k.sort, k.is.p, k.is.n) & f->mask;; at = (at + 1) & f->mask)
        if (!f->slot[at] || same_token(token_of(f->draft, f->slot[at] - 1), k)) return &f->slot[at];
}

static int32_t find_text(struct finder *f, struct token k) {
    int64_t n = tokenizer_vocab(f->draft);
    if (!f->slot) {
        f->mask = 15;
        while (f->mask < 2 * (size_t)n) f->mask = 2 * f->mask + 1;
        f->slot = mem_array(f->mask + 1, sizeof *f->slot, "table of the draft's tokens");
        for (int32_t id = 0; id < n; id++) {
            struct token of = token_of(f->draft, id);
            int32_t *slot = is_text(of) ? slot_of(f, of) : NULL;
            if (slot && !*slot) *slot = id + 1;
        }
    }
    int32_t id = *slot_of(f, k) - 1;
    struct token other = {k.sort == SORT_TEXT ? SORT_BYTE : SORT_TEXT, k.is};
    return id < 0 && k.is.n == 1 ? *slot_of(f, other) - 1 : id;
}

// What plays the part of a token of the target in the draft.
static int32_t find_role(const struct finder *f, int32_t id) {
    if (id == tokenizer_eos(f->target)) return tokenizer_eos(f->draft);
    if (id == tokenizer_bos(f->target)) return tokenizer_bos(f->draft);
    if (!tokenizer_is_end(f->target, id)) return -1;
    for (int32_t d = 0; d < tokenizer_vocab(f->draft); d++)
        if (tokenizer_is_end(f->draft, d) && d != tokenizer_eos(f->draft) && token_of(f->draft, d).sort == SORT_CONTROL) return d;
    return tokenizer_eos(f->draft);
}

static int32_t find(struct finder *f, int32_t id) {
    struct token k = token_of(f->target, id);
    if (k.sort == SORT_NOTHING) return -1;
    struct span spelled = tokenizer_token(f->target, id);
    bool here = id < tokenizer_vocab(f->draft) && same_bytes(tokenizer_token(f->draft, id), spelled); // mostly, and quickly known
    int32_t alike = here ? id : tokenizer_find(f->draft, spelled.p, spelled.n);
    if (alike >= 0) {
        struct token other = token_of(f->draft, alike);
        bool user = tokenizer_type(f->draft, alike) == TOKEN_USER || tokenizer_type(f->target, id) == TOKEN_USER;
        if (same_token(k, other) || (user && other.sort != SORT_NOTHING && is_mark(spelled))) return alike;
    }
    int32_t found = is_text(k) ? find_text(f, k) : -1;
    return found >= 0 ? found : find_role(f, id);
}

// How well a token of the target stands for one of the draft.
static int likeness(const struct finder *f, int32_t draft, int32_t target) {
    struct token a = token_of(f->draft, draft), b = token_of(f->target, target);
    if (same_bytes(tokenizer_token(f->draft, draft), tokenizer_token(f->target, target))) return 2;
    return same_token(a, b);
}

// The way back, and what both ways come to.
static void invert(struct vocab_map *m, const struct finder *f) {
    int64_t texts = 0, shared_texts = 0, own = 0;
    for (int64_t d = 0; d < m->draft_n; d++) m->to_target[d] = -1;
    for (int32_t t = 0; t < m->target_n; t++) {
        int32_t d = m->to_draft[t];
        if (d >= 0 && (m->to_target[d] < 0 || likeness(f, d, t) > likeness(f, d, m->to_target[d]))) m->to_target[d] = t;
    }
    m->same = true;
    for (int32_t t = 0; t < m->target_n; t++) {
        struct token k = token_of(f->target, t);
        int32_t d = m->to_draft[t];
        bool guessed = d >= 0 && m->to_target[d] == t;
        m->shared += guessed;
        texts += is_text(k);
        shared_texts += guessed && is_text(k);
        m->same &= k.sort == SORT_NOTHING || d == t;
    }
    for (int32_t d = 0; d < m->draft_n; d++) m->same &= m->to_target[d] == d || token_of(f->draft, d).sort == SORT_NOTHING;
    for (int32_t d = 0; d < m->draft_n; d++) own += is_text(token_of(f->draft, d));
    m->share = texts ? (double)shared_texts / (double)texts : 0;
    m->share_of_draft = own ? (double)shared_texts / (double)own : 0;
}

struct vocab_map *vocab_map_new(const struct tokenizer *draft, const struct tokenizer *target, double least, struct err *err) {
    assert(draft && target);
    struct finder f = {.draft = draft, .target = target};
    struct vocab_map *m = mem_alloc(sizeof *m, "map of vocabularies");
    m->draft_n = tokenizer_vocab(draft);
    m->target_n = tokenizer_vocab(target);
    m->to_target = mem_array((size_t)m->draft_n, sizeof *m->to_target, "map of vocabularies");
    m->to_draft = mem_array((size_t)m->target_n, sizeof *m->to_draft, "map of vocabularies");
    for (int32_t t = 0; t < m->target_n; t++) m->to_draft[t] = find(&f, t);
    invert(m, &f);
    mem_free(f.slot);
    if (m->share >= least || m->share_of_draft >= least) return m;
    err_set(err, "the draft's vocabulary has only %d%% of the target's tokens (of %lld), and the target's %d%% of the draft's (of %lld):"
                 " at least %.0f%% of one are needed", (int)(100 * m->share), (long long)m->target_n, (int)(100 * m->share_of_draft),
            (long long)m->draft_n, 100 * least);
    vocab_map_free(m);
    return NULL;
}

struct vocab_map *vocab_map_own(const struct tokenizer *t) {
    struct vocab_map *m = mem_alloc(sizeof *m, "map of vocabularies");
    m->same = m->own = true;
    m->draft_n = m->target_n = m->shared = tokenizer_vocab(t);
    m->share = m->share_of_draft = 1;
    m->to_target = mem_array((size_t)m->draft_n, sizeof *m->to_target, "map of vocabularies");
    m->to_draft = mem_array((size_t)m->target_n, sizeof *m->to_draft, "map of vocabularies");
    for (int32_t id = 0; id < m->target_n; id++) m->to_target[id] = m->to_draft[id] = id;
    return m;
}

void vocab_map_free(struct vocab_map *m) {
    if (!m) return;
    mem_free(m->to_target);
    mem_free(m->to_draft);
    mem_free(m);
}

void vocab_map_read(const struct vocab_map *m, const struct tokenizer *draft, const struct tokenizer *target, int32_t id, struct ids *out) {
    if (m->own) {
        ids_add(out, id);
        return;
    }
    int32_t twin = id >= 0 && id < m->target_n ? m->to_draft[id] : -1; // a model may have rows that are no tokens
    struct span piece = tokenizer_piece(target, id);
    int32_t bos = tokenizer_bos(draft);
    if (!out->count && bos >= 0) { // without the BOS that it learned with, a model such as Gemma guesses nothing right
        if (twin >= 0 && id == tokenizer_bos(target) && twin == tokenizer_eos(draft))
            twin = bos; // one that ends texts as well
        else if (tokenizer_adds_bos(draft) && twin != bos)
            ids_add(out, bos);
    }
    if (twin >= 0)
        ids_add(out, twin);
    else if (piece.n)
        tokenizer_encode(draft, piece.p, piece.n, TOKENIZE_INSIDE, out);
}
