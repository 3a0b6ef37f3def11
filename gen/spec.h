// spec: speculation. Somebody cheap guesses the next tokens, the target judges all of them in one pass.
//
// What a pass costs grows far slower than its rows, so a guess that holds is a token nearly for nothing (Leviathan et al.
// 2023; Chen et al. 2023). Here the guesses change nothing but speed: the sampler's choice at a position is a fixed function of
// (seed, position, distribution) (gen.h), a row's logits do not depend on the rows beside it (backend.h, rule 2), so
// speculation is no more than logits that are there before they are asked for. generate() asks spec_feed for the logits behind a
// token instead of session_feed; when the token is a node of the tree that was judged last, they are there already. Text,
// logprobs, filters, penalties: every byte is that of plain decoding, for any drafter, right or wrong. That is the
// verifier `coupled`. The verifiers of the literature keep the distribution, not the bytes; they are rows of the same table.
//
// Letters: p the target's distribution at a position behind all filters, q the one a guess was drawn from.
#ifndef LEHR_SPEC_H
#define LEHR_SPEC_H

#include "gen/gen.h"

// --- trees of guesses ------------------------------------------------------------------------------------------------

// Node 0 is the token that was chosen already; node i > 0 guesses what follows parent[i]. In preorder: parent[i] is i - 1 or one
// of its ancestors, and children of a node stand in the order in which they were drawn.
enum { DRAFT_MOST = 63, DRAFT_ROWS = DRAFT_MOST + 1 };
struct draft {
    int32_t n; // nodes, at least 1
    int32_t id[DRAFT_ROWS], parent[DRAFT_ROWS], depth[DRAFT_ROWS];
    float p[DRAFT_ROWS];      // the drafter's own estimate that the target chooses this node, given its parent; 1 for node 0
    // Verifiers that need q: of the children of node i, lists by id owned by the drafter and valid until its next draft; NULL: guesses without one.
    const struct candidate *q[DRAFT_ROWS];
    size_t n_q[DRAFT_ROWS];
};
// Adds a child behind the last node of the preorder: parent is the last node or one of its ancestors. The new node's number.
int32_t draft_add(struct draft *d, int32_t parent, int32_t id, float p);
int32_t draft_child(const struct draft *d, int32_t node, int32_t id); // the child of node that guesses id, or -1

// --- verifiers (verify.c) --------------------------------------------------------------------------------------------

// How the children of a node must have been drawn, for a verifier to be right.
enum draw {
    DRAW_ANY,     // in any way, q unknown: coupled
    DRAW_REPLACE, // independently from q, so that one may come twice
    DRAW_WITHOUT, // from q without replacement
    DRAW_TOP_ONE, // the n - 1 likeliest of q, then one drawn from the rest of q
};
// One position: n children in draw order. Lists are sorted by id, p > 0, sums 1 up to rounding.
struct judgement {
    const struct candidate *p, *q;
    size_t n_p, n_q;
    const int32_t *child;
    size_t n;
    uint64_t seed, stream, counter; // where its random numbers lie: those of `counter` and no others
    float *work; // room for 2 * (n_p + n_q) numbers
};
struct verifier {
    const char *name, *help, *source;
    enum draw draw;
    // The token for this position, a child or not; distributed as p whatever was drafted. NULL: the sampler's own choice.
    int32_t (*choose)(const struct judgement *j);
};
extern const struct verifier verifiers[]; // the first, coupled, is the default
extern const int verifier_count;
const struct verifier *verifier_find(const char *name); // NULL when unknown
// Draws up to n children for such a verifier from q (sorted by id) into child; how many there are: fewer where q has no more.
// work: room for n_q numbers.
size_t verifier_draw(enum draw draw, const struct candidate *q, size_t n_q, size_t n, uint64_t seed, uint64_t stream,
                     uint64_t counter, float *work, int32_t *child);

// --- vocabularies (vocab_map.c) --------------------------------------------------------------------------------------

// Which tokens of two vocabularies are the same: by their bytes and kind, never by number or count; padding does not matter.
struct vocab_map {
    bool same;           // every id means the same in both; padding aside, which neither list has
    int64_t draft_n, target_n; // ids of either
    int32_t *to_target;  // [draft_n], -1: the target has no such token, so it is never drafted; no id comes twice
    int32_t *to_draft;   // [target_n], -1: the draft reads it spelled out
    int64_t shared;      // tokens of the target that the draft can guess
    double share;        // of the target's tokens that stand for text
};
// Borrows both. NULL with a sentence when fewer than `least` (a share) are the same.
struct vocab_map *vocab_map_new(const struct tokenizer *draft, const struct tokenizer *target, double least, struct err *err);
void vocab_map_free(struct vocab_map *m);
// Appends what the draft reads for a token of the target: the same token, or, where it has none, its bytes by the draft's tokenizer.
void vocab_map_read(const struct vocab_map *m, const struct tokenizer *draft, const struct tokenizer *target, int32_t id, struct ids *out);

// --- n-grams (ngram.c) -----------------------------------------------------------------------------------------------

// The longest end of a text that stood in it before, and what followed there: a suffix automaton (Blumer et al. 1985), a
// constant time for each token read. Prompt lookup (Saxena 2023) with every length of match at once, and no model.
struct ngram;
struct ngram *ngram_new(void);
void ngram_free(struct ngram *g);
// The text is these n ids now. Costs what is new where it goes on from what was read, else all of it.
void ngram_read(struct ngram *g, const int32_t *ids, size_t n);
// What followed a late earlier place of the longest end that has one (the latest, but deep inside long repetitions): `most`
// ids, which run into the guess itself where the text ends; how many. *match: length of that end, 0: none, and no guess.
size_t ngram_guess(const struct ngram *g, size_t most, int32_t *out, size_t *match);

// --- drafters (drafters.c) -------------------------------------------------------------------------------------------

struct draft_ask {
    const int32_t *text; // all ids so far, the last of them chosen but not judged: node 0
    size_t n;
    int64_t position;    // of text[n - 1] in the session
    int32_t most, deepest; // guesses, and guesses in a row
    const struct verifier *verifier;
    uint64_t draw_counter; // of random draws, new for each draft
    struct sampler *sampler; // of the target, whose state and options a guess goes by; not changed
    // After each guess: is another worth its time? NULL: always, up to the limits.
    bool (*go_on)(void *arg, const struct draft *d);
    void *arg;
};
struct drafter {
    const char *name;
    // Grows d, which holds node 0. False with a sentence: this drafter is of no more use, the text goes on without.
    bool (*draft)(struct drafter *self, const struct draft_ask *ask, struct draft *d, struct err *err);
    void (*free)(struct drafter *self);
};

#endif
