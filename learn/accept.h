// accept.h: teaching a draft how often the target takes its guesses (model/accept.h has what is taught).
//
// A row is a place in a text of the target: what the draft's head reads there, and which share of its guesses the target accepts,
// sum over tokens of min(p, q), known without drawing any. The loss is the cross entropy of that share. SpecDec++ (Huang et al. 2024)
// weighs rejections 6 times, to stop early; here what is said is corrected by what came of it, and how long to go on is
// reckoned from chances (gen/pace.c), so a chance is what is wanted: rejections weigh REJECTION = 1.
#ifndef LEHR_ACCEPT_H
#define LEHR_ACCEPT_H

#include "learn/distil.h"
#include "model/accept.h"

struct accept_rows {
    int64_t C, n, cap; // cap: no more are taken
    float *x;       // [cap,C]
    float *share;   // [cap] accepted
    float *sure;    // [cap] the draft's largest probability
};
void accept_rows_open(struct accept_rows *r, int64_t C, int64_t cap);
void accept_rows_close(struct accept_rows *r);
// Of texts spread evenly over those there are. The session is as for distil_judge, with hidden rows.
MUST_USE bool accept_gather(const struct tokens *t, struct session *s, struct accept_rows *r, struct err *err);

// The mean loss over rows and, when grad is there, its gradient by the weights, [accept_count]. A pure function of the rows, for any
// number of threads.
struct accept_work;
struct accept_work *accept_work_new(int64_t C, int blocks);
void accept_work_free(struct accept_work *w);
double accept_loss(const struct accept *a, const struct accept_rows *r, const int32_t *row, int64_t n, struct accept_work *w, float *grad);

struct accept_result { // nats of a row of those held out, in the mean
    double head, sure, constant; // by the head; by buckets of the draft's largest probability; by one chance for all
    double floor;                // of the shares themselves: what no chance comes below
};
// Learns from `train` by Adam; the same for any number of threads.
struct accept *accept_learn(const struct accept_rows *train, const struct accept_rows *held_out, int blocks, struct accept_result *result);

#endif
