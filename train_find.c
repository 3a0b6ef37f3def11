// train_find.c: where a loss or a gradient stopped being finite.
//
// Nothing is watched while all is well. When a step was skipped because it is not finite, its sequences are read once more,
// forward only and one at a time (the bits are the same), and what enters every product is looked at; the first value that
// is not finite names its layer. Where all of forward is finite, it was the gradient: the parameter that backward met first
// is named. Weights are looked at in any case: once they are not finite, no other batch will help.
#include "train.h"

#include <math.h>
#include <string.h>

struct search {
    const struct run *run;
    float *host; // of one product's input
    const struct param *found;
    int64_t row;    // of the sequence; rows that enter experts are in an order of their own
    int32_t expert; // -1: none
};

static void look(void *arg, int param, struct tensor x, const int32_t *chosen, int64_t n_chosen) {
    struct search *s = arg;
    const struct backend *b = s->run->backend;
    if (s->found || x.dtype != DTYPE_F32) return;
    for (int64_t row = 0; row < x.rows && !s->found; row++) {
        b->download(s->host, (const char *)x.data + (size_t)row * x.row_bytes, (size_t)x.cols * sizeof(float));
        for (int64_t i = 0; i < x.cols && !s->found; i++)
            if (!isfinite(s->host[i])) s->found = &s->run->model->params[param], s->row = row;
        if (s->found && n_chosen) b->download(&s->expert, chosen + row, sizeof *chosen);
    }
}

// Reads one sequence; true when something in it is not finite, told in `to`.
static bool find_in(struct run *r, struct search *s, int64_t sequence, struct text *to) {
    const int64_t T = opts.seq;
    const struct observer watch = {look, s};
    mixture_sequence(&r->mixture, T, r->state.seed, sequence, 0, r->ids, r->targets, r->doc_start);
    train_observe(r->acts, &watch);
    train_drop(r->acts, dropout_of_run(r, sequence));
    train_loss(r->acts, &(struct train_batch){T, T, r->ids, r->targets, r->doc_start}, 0, r->losses);
    train_observe(r->acts, NULL);
    for (int64_t i = 0; i < T && !s->found; i++) {
        if (isfinite(r->losses[i])) continue;
        text_fmt(to, "the loss of row %lld of sequence %lld, while what enters every layer is finite", (long long)i, (long long)sequence);
        return true;
    }
    if (!s->found) return false;
    if (s->expert >= 0) {
        text_fmt(to, "what enters %s, expert %d, in sequence %lld", s->found->name, (int)s->expert, (long long)sequence);
        return true;
    }
    struct span token = tokenizer_piece(r->tokenizer, r->ids[s->row]);
    text_fmt(to, "what enters %s, row %lld of sequence %lld (token %d, '%.*s')", s->found->name, (long long)s->row, (long long)sequence,
             (int)r->ids[s->row], (int)token.n, token.p);
    return true;
}

void find_not_finite(struct run *r, int64_t first, int64_t end) {
    const struct model_config *c = &r->model->config;
    const struct param *weight = optimizer_bad_weight(r->optimizer), *gradient = optimizer_bad_gradient(r->optimizer);
    int64_t most = c->F > c->C ? c->F : c->C, heads = c->H * c->D;
    struct text where = {0};
    struct search s = {.run = r, .expert = -1, .host = mem_array((size_t)(most > heads ? most : heads), sizeof(float), "row to look at")};
    bool found = false;
    for (int64_t i = first; i < end && !found && !stop_wanted; i++) found = find_in(r, &s, i, &where);
    if (!found) text_fmt(&where, "the gradient of %s, while all losses are finite", gradient ? gradient->name : "no parameter");
    if (!stop_wanted)
        progress_note(&r->progress, "first not finite: %s; %s%s", where.data, weight ? "of the weights: " : "the weights are finite",
                      weight ? weight->name : "");
    mem_free(s.host);
    text_free(&where);
}
