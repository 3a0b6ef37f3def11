// train.h: what the files of ./train share. train.c reads the options, resumes and has the small modes; train_setup.c makes
// data and numbers of them, train_loop.c learns, train_end.c writes what is left behind. Each may end the program with a
// sentence.
#ifndef LEHR_TRAIN_H
#define LEHR_TRAIN_H

#include "gen/gen.h"
#include "learn/learn.h"
#include "train_options.h"

#include <signal.h>

struct run {
    const struct backend *backend;
    struct tokenizer *tokenizer;
    struct tokens train, valid;
    struct model *model;
    struct optimizer *optimizer;
    struct train_state *acts;
    struct schedule schedule;
    struct run_state state;
    struct log_file *log; // NULL while aside
    struct board *board;  // NULL: not asked for
    struct progress progress;
    struct text notes;
    const struct batch_lr_row *batch_lr;
    int64_t micro_seq;                    // sequences of a micro-batch
    int32_t *ids, *targets, *doc_start;   // one micro-batch
    float *losses;
    double last_save, last_eval, floor; // time_now, seconds of training, nats per byte
    int64_t resumed_at;   // tokens
    int64_t evaluated_at; // tokens of the last evaluation in the log, -1 when there is none
    int64_t cooled_at;    // the same of the last cool-down aside
};

extern volatile sig_atomic_t stop_wanted; // a signal came: save and end
_Noreturn void fail(int code, const struct err *err);
_Noreturn void refuse(int code, const char *format, ...) PRINTF_LIKE(2, 3);
char *in_out(const char *name); // path of a file in the folder of the run; the caller frees it

// train_setup.c
void make_data(struct run *r, const struct model_file *from); // from: a checkpoint, whose tokenizer is taken, or NULL
void make_stories(struct run *r); // the text, when none was named
void print_notes(struct text *notes); // to standard error, and clears them
struct model_config make_config(const struct run *r);
void set_depth(struct model_config *c); // the rule is in no file: options have it
void resolve_tokens(double expected); // how many, and how many of them decay; expected: where the clock decides
void resolve_amounts(struct run *r, const struct model_config *c); // options into `amount`: from there on nothing is "auto"
void make_schedule(struct run *r);                                 // from `amount`; again whenever that changes
void make_batch(struct run *r);
void plan_run(const struct run *r, const struct model_config *c, struct plan *plan); // measures
size_t memory_for_activations(const struct run *r, const struct model_config *c); // --memory, or what is free; tells what it costs
int64_t whole_batches(double tokens);
int64_t micro_sequences(int64_t batch_tokens);

// train_loop.c
void loop(struct run *r); // until the run is complete or stop_wanted
bool finished(const struct run *r);
void save(struct run *r, const char *folder, int keep);      // tells when it could not
double log_evaluation(struct run *r, int64_t tokens);        // nats per byte, also in the log

// train_end.c
void finish(struct run *r); // model.gguf, samples, report
void draw_log(const struct log_rows *rows, FILE *to);
void watch(const char *folder); // draws a run of another process until it is complete or Ctrl-C comes

#endif
