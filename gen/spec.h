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
#include "model/accept.h"

// --- predictors (pace.c) ---------------------------------------------------------------------------------------------

// What is said of a guess before it is judged: words from 0 to 1, the more the likelier it holds, or -1 for none. Each is
// corrected by what came of guesses of such a word; the pace mixes them, those the most that were nearest to what happened.
enum predictor { BY_CONFIDENCE, BY_ENTROPY, BY_RUNNING, BY_HEAD, PREDICTORS };
struct predictor_row {
    const char *name, *help;
    double first; // taken for its mean squared error while that is not known
};
extern const struct predictor_row predictors[PREDICTORS];

// --- trees of guesses ------------------------------------------------------------------------------------------------

// Node 0 is the token that was chosen already; node i > 0 guesses what follows parent[i]. In preorder: parent[i] is i - 1 or one
// of its ancestors, and children of a node stand in the order in which they were drawn.
enum { DRAFT_MOST = 63, DRAFT_ROWS = DRAFT_MOST + 1 };
struct draft {
    int32_t n; // nodes, at least 1
    double reading_s; // what it took to read what is new of the text, before the first guess
    int32_t id[DRAFT_ROWS], parent[DRAFT_ROWS], depth[DRAFT_ROWS];
    float p[DRAFT_ROWS];      // the drafter's own estimate that the target chooses this node, given its parent; 1 for node 0
    float word[DRAFT_ROWS][PREDICTORS]; // of node i > 0, p among them
    // Verifiers that need q: of the children of node i, lists by id owned by the drafter and valid until its next draft; NULL: guesses without one.
    const struct candidate *q[DRAFT_ROWS];
    size_t n_q[DRAFT_ROWS];
};
// Adds a child behind the last node of the preorder: parent is the last node or one of its ancestors. The new node's number. Its
// word is p; others are the caller's to add.
int32_t draft_add(struct draft *d, int32_t parent, int32_t id, float p);
int32_t draft_child(const struct draft *d, int32_t node, int32_t id); // the child of node that guesses id, or -1

// --- verifiers (verify.c) --------------------------------------------------------------------------------------------

// How the children of a node must have been drawn, for a verifier to be right.
enum draw {
    DRAW_ANY,     // in any way, q unknown: coupled
    DRAW_REPLACE, // independently from q, so that one may come twice, and then counts twice
    DRAW_WITHOUT, // from q without replacement
    DRAW_TOP_ONE, // the n - 1 likeliest of q, then one drawn from the rest of q
};
// One position: n children in draw order. Lists are sorted by id, p > 0, sums 1 up to rounding; without children there need be no q.
struct judgement {
    const struct candidate *p, *q;
    size_t n_p, n_q;
    const int32_t *child;
    size_t n;
    uint64_t seed, stream, counter; // where its random numbers lie: those of `counter` and no others
    double *work; // room for n_p + n_q numbers
};
struct verifier {
    const char *name, *help, *source;
    enum draw draw;
    bool at_once; // how many children a node has is settled before the first of them is drawn; else whenever one is, by what came before
    // The token for this position, a child or not; distributed as p whatever was drafted. NULL: the sampler's own choice.
    int32_t (*choose)(const struct judgement *j);
};
extern const struct verifier verifiers[]; // the first, coupled, is the default
extern const int verifier_count;
const struct verifier *verifier_find(const char *name); // NULL when unknown
// Draws up to n children for such a verifier from q (sorted by id) into child; how many there are: fewer where q has no more. DRAW_ANY
// takes the likeliest. Each node of each draft has a (stream, counter) of its own. Unless at_once, the first ones of n are those of
// any smaller n, so a further child of a node is the last of one more. work: room for n_q numbers.
size_t verifier_draw(enum draw draw, const struct candidate *q, size_t n_q, size_t n, uint64_t seed, uint64_t stream,
                     uint64_t counter, double *work, int32_t *child);

// --- vocabularies (vocab_map.c) --------------------------------------------------------------------------------------

// Which tokens of two vocabularies are the same: by their bytes and kind, never by number or count; padding does not matter.
struct vocab_map {
    bool same;           // every id means the same in both; padding aside, which neither list has
    bool own;            // there is but one vocabulary: the draft reads what the target read
    int64_t draft_n, target_n; // ids of either
    int32_t *to_target;  // [draft_n], -1: the target has no such token, so it is never drafted; no id comes twice
    int32_t *to_draft;   // [target_n], -1: the draft reads it spelled out
    int64_t shared;      // tokens of the target that the draft can guess
    double share;        // of the target's tokens that stand for text
    double share_of_draft; // of the draft's; a part of the target's vocabulary has all of them
};
// Borrows both. NULL with a sentence when fewer than `least` (a share) of either are the same.
struct vocab_map *vocab_map_new(const struct tokenizer *draft, const struct tokenizer *target, double least, struct err *err);
struct vocab_map *vocab_map_own(const struct tokenizer *t); // of a draft that is a part of its target
void vocab_map_free(struct vocab_map *m);
// Appends what the draft reads for a token of the target: the same token, or, where it has none, its bytes by the draft's
// tokenizer; nothing for a control token without a twin. An empty `out` is the beginning of a text and gets the draft's BOS.
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
    int32_t most, deepest;           // guesses, and guesses in a row
    int32_t wide;                    // children of a node, at most; 1: a chain
    double least;                    // of a tree: guesses less likely than this, all in all, are left out
    const struct verifier *verifier; // how guesses are to be drawn
    uint64_t draws;                  // counter of random draws, another for each draft
    struct sampler *sampler;         // of the target: its options and state are what a guess goes by; not changed
    uint64_t seed;
    // Of a chain, after each guess: is another worth its time? NULL: always, up to the limits.
    bool (*go_on)(void *arg, const struct draft *d);
    void *arg;
};
struct drafter {
    const char *name;
    double cost; // of a guess, in passes of the target: a first estimate; 0: no model is asked
    // Grows d, which holds node 0, to any size, or not at all. False with a sentence: this drafter is of no more use.
    bool (*draft)(struct drafter *self, const struct draft_ask *ask, struct draft *d, struct err *err);
    void (*free)(struct drafter *self);
};
struct drafter_row {
    const char *name, *help;
    bool model; // needs a draft model
};
extern const struct drafter_row drafter_rows[]; // those of --spec
extern const int drafter_row_count;

// What followed here before; no model, no tree.
struct drafter *drafter_ngram(void);
// A small model. Its session has a tree of as many nodes as ask.most + 1, STAGED_ROWS at the least when staged, and as many rows of logits. Keys and values follow the text that was
// taken; a text longer than its context is read from its middle. staged: n-grams of the text guess for the draft model, which
// judges them as the target judges its own (Spector & Re 2023). The first layers of the target are such a model, too (model_prefix; LayerSkip, Elhoushi
// et al. 2024, with a cache of its own): they share the target's tokenizer, and the map is vocab_map_own's.
enum { STAGED_ROWS = 8 };
struct draft_model {
    struct session *session;
    const struct tokenizer *tokenizer, *target_tokenizer;
    const struct vocab_map *map;
    bool staged;
    const struct accept *accept; // the draft's acceptance head, of use in chains; its session has hidden rows then. Or NULL
    const char *name;            // of the drafter; NULL: model or staged
    double cost; // as in struct drafter
};
struct drafter *drafter_model(const struct draft_model *m); // borrows all that m points to

// --- the pace (pace.c) -----------------------------------------------------------------------------------------------

// When and how much to guess, by measuring (SmartSpec, Liu et al. 2024, with seconds for its model of a server). Knows no models, only
// seconds, rows and what held. Plain passes cost T(1), a pass of n rows T(n).
enum { PACE_ARMS = 3, PACE_BUCKETS = 16 };
struct pace_cost { // measured again and again; x 0: not known
    double x;
    bool over; // the last time it was much more
};
struct pace_words { // of one predictor
    double tried[PACE_BUCKETS], held[PACE_BUCKETS]; // guesses judged of late
    double error, judged; // the sum of squares of what its chances were off, over so many; both forget slowly
};
struct pace_arm { // a drafter
    struct pace_words by[PREDICTORS];
    double made, chances; // all guesses of late, and their chances
    struct pace_cost guess; // seconds of one
    double cost;            // what is taken for it, in T(1), while that is not known
};
struct pace {
    int arms;
    struct pace_arm arm[PACE_ARMS];
    struct pace_cost plain, ratio[DRAFT_ROWS + 1]; // T(1); T(n) / T(1)
    double late_tokens, late_s;            // of late, both forgotten alike
    double account;                        // seconds won by guesses, as far as it is remembered
    int64_t plain_passes, judged_passes, in_a_row, resting; // plain passes since one of another kind; that are due before the next guess
};
struct pace_chain { // guesses in a row: how many, the sum of the chances that each is reached and holds, that of the last
    int32_t n, most;
    double sum, reach, seconds; // seconds: that they took
};
void pace_open(struct pace *p, int arms, const double *cost);
bool pace_may_guess(const struct pace *p);
double pace_rows(const struct pace *p, int32_t n);                                     // T(n) / T(1)
enum predictor pace_predictor(const struct pace *p, int arm, const float *words);      // the nearest so far, of those that say something
double pace_error(const struct pace *p, int arm, enum predictor by);                   // mean square, of late
double pace_chance(const struct pace *p, int arm, const float *words);                 // that a guess holds, once all before it did
double pace_value(const struct pace *p, double tokens, int32_t rows);                  // of a pass, less the one token that all bring
double pace_ahead(const struct pace *p, int arm, const struct pace_chain *c, bool *more); // the best it may become; more: with further guesses
double pace_row_share(const struct pace *p);                                           // tokens that a further row must bring
void pace_plain(struct pace *p, double took);
void pace_judged(struct pace *p, int32_t rows, double took);
void pace_drafted(struct pace *p, int arm, int32_t guesses, double took);
void pace_made(struct pace *p, int arm, const float *words);
void pace_told(struct pace *p, int arm, const float *words, bool held); // of a guess all before which held
void pace_token(struct pace *p, bool guessed);                 // one more in the text

// --- the loop (spec.c) -----------------------------------------------------------------------------------------------

struct spec_options {
    struct session *session;       // the target's, with a tree of rows >= 2
    const struct tokenizer *tokenizer;
    struct drafter *drafters[3];   // tried in this order where all are alike
    int n_drafters;
    const struct verifier *verifier;
    int32_t rows;                  // of a pass, at most: guesses and one
    int32_t most, least;           // guesses in a row; least > 0: fewer are not worth judging
    int32_t wide;                  // children of a node; 1: chains
    double p_min;                  // guesses that the drafter itself holds less likely end a chain
    bool fixed;                    // always `most`, by the first drafter that has something: no measuring
    uint64_t seed;
};
enum { SPEC_PLACES = 8 };
struct spec_stats {
    int64_t tokens, passes, plain_passes;
    int64_t guesses, held;                            // guesses judged, and of them chosen
    int64_t at[SPEC_PLACES], held_at[SPEC_PLACES];    // by place in a row: reached (all before it held), held. The last: all further ones
    int64_t by[3];                                    // passes by drafter
    double seconds, draft_s, judge_s, plain_s;        // all; guessing; passes of guesses; of plain ones with what follows them
    int64_t plain_tokens;                             // in plain_s
};
struct spec;
struct spec *spec_new(const struct spec_options *o); // borrows what o points to
void spec_free(struct spec *s);
// A text begins or goes on: the session holds all of it, the sampler is that of the text.
void spec_begin(struct spec *s, struct sampler *sampler);
// As session_feed(session, &id, 1, FEED_GENERATED, LOGITS_LAST): the same logits, from this pass or the one before.
const float *spec_feed(struct spec *s, int32_t id, struct err *err);
// As sampler_pick, or by the verifier, where it is another than coupled and there are guesses.
int32_t spec_pick(struct spec *s, const float *logits, int64_t position, struct err *err);
int64_t spec_length(const struct spec *s); // of the text that was fed: session_length as it were
void spec_end(struct spec *s);             // the session holds that text and no more
struct spec_stats spec_stats(const struct spec *s);
// Times as fast as plain, by the plain passes in between; *plain: tokens a second of these. NaN without any.
double spec_gain(const struct spec_stats *t, double *plain);
const char *spec_trouble(const struct spec *s); // why a drafter was given up, or NULL
// "1.62x (31.0 tokens/s plain, 50.2 with guesses)...": one line.
void spec_tell(const struct spec *s, struct text *line);

#endif
