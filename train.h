// train.h: what the files of ./train share. train.c reads the options, resumes and has the small modes; train_setup.c makes
// data and numbers of them, train_from.c takes over a model, train_draft.c makes a draft for one, train_loop.c learns, train_save.c saves and goes back, train_find.c
// finds what is not finite, train_end.c writes what is left behind. Each may end the program with a
// sentence.
#ifndef LEHR_TRAIN_H
#define LEHR_TRAIN_H

#include "gen/gen.h"
#include "learn/distil.h"
#include "train_options.h"

#include <signal.h>

struct run {
    const struct backend *backend;
    struct tokenizer *tokenizer;
    struct tokens train, valid;
    struct tokens replay, replay_valid; // the old text; empty without
    struct mixture mixture;             // what steps are made of: train, and replay with its share
    // Of --from, until its weights are read; else NULL and zeros.
    struct model_file *source;
    struct model_config source_config;
    struct run_state source_state; // of a checkpoint
    bool source_optimizer;         // its optimizer is ours
    struct apprentice *draft;        // of --draft-for, else NULL
    struct distil_score score;  // of its last evaluation
    struct model *model;
    struct optimizer *optimizer;
    struct train_state *acts;
    struct schedule schedule;
    struct run_state state;
    struct saver *saver;  // NULL: steps wait for checkpoints
    struct log_file *log; // NULL while aside
    struct board *board;  // NULL: not asked for
    struct progress progress;
    struct text notes;
    const struct batch_lr_row *batch_lr;
    struct known known;                   // what the rules of learn/rules.c went by
    double pace;                          // tokens a second, measured before; 0: was not
    bool size_is_derived;
    int64_t micro_seq;                    // sequences of a micro-batch
    int32_t *ids, *targets, *doc_start;   // one micro-batch
    float *losses;
    float *layer_norms;   // L + 2
    double peak;          // operations a second; 0: not measured yet, NAN: unknown
    bool not_finite;      // the last step was the first of such
    double last_save, last_eval, floor; // time_now, seconds of training, nats per byte
    int64_t resumed_at;   // tokens
    int64_t saved_at;     // of the last save among the checkpoints of the run
    int64_t evaluated_at; // tokens of the last evaluation in the log, -1 when there is none
    int64_t cooled_at;    // the same of the last cool-down aside
};

extern volatile sig_atomic_t stop_wanted; // a signal came: save and end
_Noreturn void fail(int code, const struct err *err);
_Noreturn void refuse(int code, const char *format, ...) PRINTF_LIKE(2, 3);
char *in_out(const char *name); // path of a file in the folder of the run; the caller frees it

// train_from.c
void open_source(struct run *r);                     // refuses what the options have against it
void check_source_tokenizer(const struct run *r);
void begin_from_source(struct run *r);               // in the state, before the first step
void read_source(struct run *r);                     // weights, and the optimizer's state; closes it

// train_draft.c
void draft_options(void);                            // refuses what is against --draft-for
void make_draft_data(struct run *r, const struct model_file *checkpoint); // has the target write, or go on with it; NULL: a new run
void draft_shape(const struct run *r);               // into the options, where these say nothing of it
struct distil_score draft_score(const struct run *r, int64_t tokens); // of the model as it is now, for a validation of so many
void write_draft(const struct run *r, const char *model); // OUT/NAME.draft.gguf from the model that was written, and OUT/NAME.gguf

// train_setup.c
void print_tokens(const char *name, const struct tokens *t);
void need_a_sequence(const char *what, const struct tokens *t); // refuses less
void make_data(struct run *r, const struct model_file *from); // from: a model, whose tokenizer is taken, or NULL
void make_stories(struct run *r); // the text, when none was named
void print_notes(struct text *notes); // to standard error, and clears them
struct model_config make_config(struct run *r); // chooses a size where none was given
void print_derived(const struct run *r); // the numbers that nobody gave, each with its rule
void resolve_tokens(double expected); // how many, and how many of them decay; expected: where nobody said
bool rung_read(const char *word, double *share, double *decay); // of --ladder; false: not one
void set_depth(struct model_config *c); // the rule is in no file: options have it
void set_exit(struct model_config *c);  // by the options; refuses a layer that is not there
void resolve_amounts(struct run *r, const struct model_config *c); // options into `amount`: from there on nothing is "auto"
void make_schedule(struct run *r);                                 // from `amount`; again whenever that changes
void make_batch(struct run *r);
void plan_run(const struct run *r, const struct model_config *c, struct plan *plan); // measures
size_t memory_for_activations(const struct run *r, const struct model_config *c); // --memory, or what is free; tells what it costs
int64_t whole_batches(double tokens);
int64_t micro_sequences(int64_t batch_tokens);

struct model_config config_at_width(const struct model_config *c, int64_t width); // heads and depth stay, all else in proportion
int64_t default_batch(double D);
struct optimizer_options optimizer_options_of_run(void);
void start_run(struct run *r);    // state, schedule, batch and micro-batch from `amount`
void allocate_run(struct run *r, size_t memory); // what a model needs beside it to learn; memory: of activations
void free_run(struct run *r);     // that, and the model

// train_check.c
bool coord_check(struct run *r, const struct model_config *c); // prints what it finds

// train_tune.c
int tune(struct run *r); // the exit status

// train_loop.c
double loop_aside(struct run *r); // all of a run, without files; its validation loss, INFINITY when it diverged or is no better
                                  // than a uniform guess, NAN when stop_wanted
void loop(struct run *r); // until the run is complete or stop_wanted
bool finished(const struct run *r);
void note_row(struct run *r, const struct log_row *row);     // into the log and the event file
struct dropout dropout_of_run(const struct run *r, int64_t s); // of a training pass over its sequences from number s on
double log_evaluation(struct run *r, int64_t tokens);        // nats per byte, also in the log

// train_save.c
void check_disk(const struct run *r, const struct model_config *c); // refuses a run whose files will not fit
void make_saver(struct run *r, size_t memory); // memory: of activations
bool save(struct run *r, const char *folder, int keep); // tells when it could not; beside the steps where there is a saver
bool saved(struct run *r, bool wait);                   // tells what became of it; true: nothing is missing
void keep_options(struct run *r);                       // in the state
void keep_good(struct run *r);                          // a state to go back to, when it is time for one
void go_back(struct run *r, const char *why);
bool read_back(struct run *r, const char *path, struct err *err); // state and tensors of a checkpoint of this run

// train_find.c
void find_not_finite(struct run *r, int64_t first, int64_t end); // in the sequences of the step just made; tells it

// train_end.c
void run_sample(struct run *r, struct session *s, int64_t seed, int64_t tokens, bool echo, struct text *to);
void finish(struct run *r); // model.gguf, samples, report
void draw_log(const struct log_rows *rows, FILE *to);
void watch(const char *folder); // draws a run of another process until it is complete or Ctrl-C comes

#endif
