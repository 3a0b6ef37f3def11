// accept: a small head on a draft model that says how likely its guess holds (SpecDec++, Huang et al. 2024).
//
// It reads what the draft's own head reads, the normed stream x [C] of the place that guesses:
//   x += silu(W_i x) for each block, chance = 1 / (1 + exp(-(u x + c)))
// and was taught by what the target would have accepted there (learn/accept.h). The chance is one of the words that the pace
// goes by (gen/spec.h); no token hangs on it.
//
// In a file it is keys, not tensors: loaders refuse files with tensors that they do not expect, ours and llama.cpp's too, and
// take no offence at a key. So a draft with a head is a model like any other to who does not know of it.
#ifndef LEHR_MODEL_ACCEPT_H
#define LEHR_MODEL_ACCEPT_H

#include "formats/formats.h"

enum { ACCEPT_BLOCKS_MOST = 8 };
struct accept {
    int64_t C;
    int blocks;
    float *weights; // [blocks] of W [C,C], then u [C] and c
};
struct accept *accept_new(int64_t C, int blocks); // all zero: it says one half
void accept_free(struct accept *a);               // NULL is allowed
static inline size_t accept_count(int64_t C, int blocks) { return (size_t)C * (size_t)C * (size_t)blocks + (size_t)C + 1; }
// What leaves block i, from what entered it; z (may be NULL) receives W_i x.
void accept_block(const struct accept *a, int i, const float *x, float *z, float *out);
float accept_logit(const struct accept *a, const float *x); // u x + c of what left the last
// room: 2 C numbers.
float accept_chance(const struct accept *a, const float *hidden, float *room);

void accept_write(const struct accept *a, struct gguf_out *o); // the keys lehr.accept.*
// Of a file whose model has C channels: *a NULL where there is none. False with a sentence when it is damaged.
MUST_USE bool accept_read(const struct model_file *f, int64_t C, struct accept **a, struct err *err);

#endif
