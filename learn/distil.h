// distil.h: what a target wrote becomes what a draft learns from.
//
// A draft is a small model that guesses what a large one, the target, says next (speculative decoding). It learns from texts of the
// target's own (distillation on the target's samples: Kim & Rush 2016; Zhou et al. 2024, DistillSpec), and at each place not
// from the one token that came next but from the target's likeliest with their probabilities: the loss is KL(target || draft) over
// these, up to a constant. Of a position's loss, sum over k of p[k] (-log q[k]), the tail beyond the SOFT_TOP likeliest is left
// out: a small draft has nothing to spend there, and what it says of these alone is most likely right.
//
// The draft has a part of the target's vocabulary (tokenizer_part). What it has no token for it reads spelled out, and is never
// asked for in the middle of such a spelling: rows there have no target, and a probability of a token that it lacks is lost.
//
// In a step the target of a row is drawn from the p[k] (none with what they lack to 1): the gradient's mean is that of the
// loss above. A text is learned from many times, and what is drawn at a place in its e-th epoch is where the fractional part of
// u + e / 1.618... falls, u uniform by place: each draw is a fair one, and together they are as even as they can be: after any
// number of epochs a token was drawn as often as it is likely, but for one or two, where chance would be off by a root. A pure
// function of place, seed and epoch, so that a resumed run draws the same.
#ifndef LEHR_DISTIL_H
#define LEHR_DISTIL_H

#include "learn/learn.h"

enum { SOFT_TOP = 16 };

// --- the file of samples ---------------------------------------------------------------------------------------------

// "LEHRSMP1", then the rest of this head, 64 bytes in all; then windows: ids i32[length], the likeliest tokens behind each
// i32[length][SOFT_TOP], their probabilities f16[length][SOFT_TOP], hash u64 of these. A window is there whole or not at all, so
// writing goes on where it was ended.
struct samples_head {
    char magic[8];
    uint64_t source, seed; // who wrote it: model, tokenizer, text
    int32_t vocab, length;
    int64_t goal;          // windows; 0: not known yet
    uint8_t zero[24];
};
struct samples_out;
// Opens for appending, a new file with this head or one there is, whose head, but for the goal, must be this one. *windows: how many
// are there; what is behind the last whole one is cut off. head receives the goal of the file. NULL on failure.
struct samples_out *samples_append(const char *path, struct samples_head *head, int64_t *windows, struct err *err);
void samples_goal(struct samples_out *o, int64_t goal);
void samples_add(struct samples_out *o, const int32_t *ids, const int32_t *top, const float *p); // what fails is told by samples_done
MUST_USE bool samples_done(struct samples_out *o, struct err *err); // frees o

struct samples {
    struct file_map map;
    struct samples_head head;
    int64_t windows;
    uint64_t hash; // of all windows in use
};
// The first `most` windows of a file (0: all).
MUST_USE bool samples_open(struct samples *s, const char *path, int64_t most, struct err *err);
void samples_close(struct samples *s);
int32_t samples_id(const struct samples *s, int64_t window, int64_t i);
struct soft_row { // what was likely behind a token
    const int32_t *id;
    const uint16_t *p; // f16, falling; zeros: another text begins
};
struct soft_row samples_row(const struct samples *s, int64_t window, int64_t i);

// --- vocabulary and tokens -------------------------------------------------------------------------------------------

// Which tokens of the target the draft has: what every part needs, then the likeliest of the samples until there are `most`.
// keep: [vocabulary of t], cleared before; how many.
int64_t distil_vocabulary(const struct samples *s, const struct tokenizer *t, int64_t most, bool *keep);

// What a draft guesses and reads for the tokens of its target.
struct draft_words {
    int32_t n;      // tokens of the target
    int32_t *guess; // [n] the same token; -1: the draft has none
    size_t *at;     // [n + 1] of token i are read the ids from at[i] to at[i + 1]
    struct ids read;
};
void draft_words_free(struct draft_words *w);
// Beside the tokens of a draft (learn.h): where in the samples each of them ends a token of the target.
struct soft {
    const struct samples *samples;   // borrowed
    const struct draft_words *words; // borrowed
    int32_t *place;                  // [count] window * length + i; -1: inside of a token of the target
    unsigned char *begins;           // [count] a text begins
};
// Windows for training, and every so-manieth, that share of them, for validation. tokens_free frees what hangs on them.
void distil_tokens(const struct samples *s, const struct tokenizer *target, const struct tokenizer *draft, const struct draft_words *words,
                   double valid_share, struct tokens *train, struct tokens *valid);
void soft_free(struct soft *f);
int32_t soft_draw(const struct soft *f, int64_t at, uint64_t seed, uint64_t epoch); // a target for the row of token `at`; -1: none
// Which of the draft's tokens are likely behind token `at`, [SOFT_TOP], -1 for those it lacks, and how likely; false: nothing
// is to be said there.
bool soft_targets(const struct soft *f, int64_t at, int32_t *id, float *p);

// --- how good a draft is ---------------------------------------------------------------------------------------------

struct distil_score {
    // Means over places. acceptance: sum over the kept tokens of min(p, q), which speculative sampling at temperature 1 accepts at
    // least. agreement: the likeliest token is the same.
    double acceptance, agreement;
    int64_t places;
};
// Over about so many tokens, texts spread evenly over those there are. The session is the draft's, with all_logits of at least
// DISTIL_ROWS; it is forgotten.
enum { DISTIL_ROWS = 128 };
MUST_USE bool distil_judge(const struct tokens *valid, struct session *s, int64_t tokens, struct distil_score *score, struct err *err);
// The same, and each place is shown: what the head read there (the session has hidden rows), which share of the draft's
// guesses is accepted, and its largest probability.
struct distil_seer {
    void (*see)(void *arg, const float *hidden, double accepted, double sure);
    void *arg;
};
MUST_USE bool distil_look(const struct tokens *valid, struct session *s, int64_t tokens, const struct distil_seer *seer, struct distil_score *score, struct err *err);

#endif
