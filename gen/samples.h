// samples.h: texts that a model writes itself, many at a time, and what it might have written at each place.
//
// They are what another model learns from, to guess what this one says (learn/distil.h). A window is `length` tokens: a text, and
// where it ends, the next one. Window n is a pure function of model, tokenizer, text, seed, length and n: how many are written
// at once shows in no bit, and whoever has the first n goes on with the next.
//
// What is in them: every second window is a chat, where the model has a template, since such a model is asked in it. A text
// begins with a piece of the user's text, if there is one; else plain ones begin with nothing, and in chats the model first
// asks itself: it goes on from where the template has the user speak (Xu et al. 2024, "Magpie"). Half of either is drawn from all
// tokens at temperature 1, so that everything the model may do is there, the other half among the SAMPLE_TOP likeliest at
// temperature 0.7: what it is run with lies between (./run: 0.8, top-k 40), and small models drift at 1 into
// texts that nobody asks for.
#ifndef LEHR_SAMPLES_H
#define LEHR_SAMPLES_H

#include "core/core.h"
#include "model/model.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"

enum { SAMPLE_TOP = 16 };
struct sample {
    int64_t number;
    const int32_t *ids; // [length]
    const int32_t *top; // [length][SAMPLE_TOP] the likeliest tokens behind each, falling
    const float *p;     // [length][SAMPLE_TOP] their probabilities at temperature 1; zeros where another text begins behind it
};
struct sampling {
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat; // NULL: none
    const char *text;                 // documents back to back, and where each of them ends; n_ends 0: none
    const size_t *ends;
    size_t n_ends;
    int64_t first, count, length;     // windows
    int64_t at_once;
    uint64_t seed;
    bool (*take)(void *arg, const struct sample *w); // windows in order; NULL: one more token of each. false ends it
    void *arg;
};
// False when the session or the template failed; true also when take ended it.
MUST_USE bool sample_windows(const struct sampling *s, struct err *err);

#endif
