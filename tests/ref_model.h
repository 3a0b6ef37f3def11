// ref_model.h: the block of model/model.h once more, in double precision and without any cleverness: one row, one
// head, one sum at a time, written from the formulas and sharing no line with model/. The tests hold forward.c to
// it, and differentiate it numerically to hold backward.c to it.
#ifndef LEHR_REF_MODEL_H
#define LEHR_REF_MODEL_H

#include "model/model.h"

struct ref_model {
    struct model_config config;
    int n_params;
    double **w; // one array per parameter, in the order of config_params_table
    const struct layer *layers; // the model's, borrowed: which parameter is what
    int out_norm, head;
    struct objective aim;
    double *use; // [L*E] rows of each expert in the sequences of a batch so far, for BALANCE_GLOBAL
    struct dropout drop; // of ref_loss: row is that of its first row
};
// Copies the weights of a trainable f32 model whose memory is host memory.
struct ref_model *ref_new(const struct model *m);
void ref_free(struct ref_model *r);
// One sequence of T tokens; logits [T,V], already divided by logit_divisor. Row i sees rows doc_start[i] .. i;
// NULL: all.
// aside (may be NULL): what the aim's balance and router_z add for these tokens.
void ref_logits(const struct ref_model *r, const int32_t *ids, const int32_t *doc_start, int64_t T, double *logits,
                double *aside);
// Sum of losses over sequences of T tokens; targets of -1 do not count. With an aim, besides what it adds to that sum.
double ref_loss(const struct ref_model *r, const int32_t *ids, const int32_t *targets, const int32_t *doc_start,
                int64_t rows, int64_t T);

// The f32 numbers of parameter i, or of its gradient, where the host can read them: a copy, freed by the caller; and back.
float *fetch_weights(const struct model *m, int i);
float *fetch_gradient(const struct model *m, int i);
void send_weights(struct model *m, int i, const float *w);

#endif
