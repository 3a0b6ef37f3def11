// transport: how often a token drawn from p can be among n guesses drawn from q, at best, and by the rules of gen/verify.c.
//
// The best is an optimal transport between p and the draws. By the theorem of max-flow and min-cut it is
//     1 + min over sets H of tokens of  p(H) - Pr(all guesses lie in H)
// and for the draws of spec.h the best H is a beginning of the vocabulary sorted by p / q (Hu et al. 2025, arXiv 2502.18779;
// tests/test_verify.c holds it to all sets and to a max-flow). Probabilities are dense, double, and sum to one.
#ifndef LEHR_TESTS_TRANSPORT_H
#define LEHR_TESTS_TRANSPORT_H

#include "gen/spec.h"

// At best. DRAW_ANY: as DRAW_WITHOUT.
double transport_best(enum draw draw, const double *p, const double *q, int V, int n);
// By a verifier, counting what it draws in the end, too, where that is a guess. NaN where there is no formula (coupled) or
// it has too many terms.
double transport_taken(const struct verifier *v, const double *p, const double *q, int V, int n);

#endif
