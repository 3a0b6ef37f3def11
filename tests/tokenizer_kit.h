// tokenizer_kit: what the suites of the tokenizer share: texts, vocabularies made by hand and at
// random, comparisons.
#ifndef LEHR_TESTS_TOKENIZER_KIT_H
#define LEHR_TESTS_TOKENIZER_KIT_H

#include "tokenizer/internal.h"

#define WORD_MARK "\xE2\x96\x81"

uint64_t tk_below(uint64_t seed, uint64_t *counter, uint64_t n);
struct span tk_span_of(const char *s);
struct ids tk_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags);
struct text tk_decode(const struct tokenizer *t, const struct ids *ids);
void tk_expect_ids(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                   const char *wanted);
void tk_expect_same(const struct ids *got, const struct ids *wanted, uint64_t seed, int index);
// A file of texts in hex with two lines of ids each, control spellings as text and as tokens; how many texts.
int tk_expect_golden(const struct tokenizer *t, const char *path);
char *tk_next_line(char **at);    // cut out; NULL at the end
size_t tk_unhex(char *hex);       // in place; how many bytes
char *tk_temporary(const char *name); // a path of this process; one at a time
struct tokenizer *tk_reread(const struct tokenizer *t, struct err *err); // through a GGUF file

// A small prose that repeats itself enough to train on, and a BPE trained on it.
struct text tk_prose(size_t bytes, uint64_t seed);
struct tokenizer *tk_trained(size_t bytes, int64_t vocab);

// What a file would say, put together by hand. BPE: ids 0..255 are the bytes by value. SPM: 0
// unknown, 1 BOS, 2 EOS, then the bytes if wanted.
struct tk_made {
    enum tokenizer_kind kind;
    struct text spellings;
    size_t end[2048];
    unsigned char type[2048];
    float score[2048];
    size_t n, n_merges;
    const char *merge[64];
    int64_t bos, eos;
};
struct tk_made *tk_made_bpe(void);
struct tk_made *tk_made_spm(bool bytes);
void tk_made_add(struct tk_made *m, const char *spelling, size_t n, int type, float score);
void tk_made_str(struct tk_made *m, const char *spelling, int type, float score);
struct span *tk_made_tokens(const struct tk_made *m); // freed by the caller
struct tokenizer *tk_made_open(struct tk_made *m, struct err *err);
void tk_made_free(struct tk_made *m);

// Merges of a, b, c in any order of lines; SPM over a few characters with equal scores among them,
// crossing: with spaces inside tokens.
struct tokenizer *tk_random_bpe(uint64_t seed);
struct tokenizer *tk_random_spm(uint64_t seed, bool crossing);

#endif
