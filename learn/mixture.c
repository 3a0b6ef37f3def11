// mixture: several texts in one run, each with a share of its sequences.
//
// A sequence of a run is one text's from end to end, so a share of sequences is a share of tokens. Which text it is, and
// which of that text's own sequences, is a pure function of its number: blocks of 64 numbers are shuffled, and the first of
// the shuffled places go to one text, as many as bring it to its share of all blocks so far, rounded down. So at the end of
// each block a share holds within one sequence, and no batch size falls into step with the texts, as it would were every
// twentieth sequence an old one. Every text runs through its own epochs in its own order (loader_sequence).
//
// More than two: the last one is taken out by its share, what remains has numbers without gaps, and so on down to the first.
#include "learn/learn.h"

enum { BLOCK = 64 };
static const uint64_t stream_mixture = 0x6d69780000000000u; // + text << 32 + block

// How many of the first n sequences a share of x is.
static uint64_t part_of(uint64_t n, double x) { return (uint64_t)((double)n * x); }

int mixture_source(const struct mixture *m, uint64_t seed, int64_t *s) {
    assert(m->count > 0 && m->count <= MIXTURE_MOST && *s >= 0);
    double all = 0;
    for (int i = 0; i < m->count; i++) all += m->share[i];
    uint64_t number = (uint64_t)*s;
    int source = m->count - 1;
    for (; source > 0; all -= m->share[source--]) {
        const double x = m->share[source] / all;
        const uint64_t block = number / BLOCK, before = part_of(block * BLOCK, x), here = part_of((block + 1) * BLOCK, x) - before;
        const uint64_t place = rng_permute(seed, stream_mixture + ((uint64_t)source << 32) + block, number % BLOCK, BLOCK);
        number = place < here ? before + place : block * BLOCK - before + place - here;
        if (place < here) break;
    }
    *s = (int64_t)number;
    return source;
}

void mixture_sequence(const struct mixture *m, int64_t T, uint64_t seed, int64_t s, int32_t base, int32_t *ids, int32_t *targets,
                      int32_t *doc_start) {
    const int source = mixture_source(m, seed, &s);
    loader_sequence(m->tokens[source], T, seed, s, base, ids, targets, doc_start);
}

uint64_t mixture_hash(const struct mixture *m) {
    uint64_t hash[MIXTURE_MOST];
    for (int i = 0; i < m->count; i++) hash[i] = m->tokens[i]->hash;
    return m->count == 1 ? hash[0] : hash_bytes(0, hash, (size_t)m->count * sizeof *hash);
}
