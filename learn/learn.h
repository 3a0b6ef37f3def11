// learn: from data to weights.
//
// Learning rate, batch and data order are pure functions of the token index and the seed, so a run has no scheduler
// or loader state: a checkpoint is weights, moments and a handful of integers, and resuming is exact.
#ifndef LEHR_LEARN_H
#define LEHR_LEARN_H

#include "core/core.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

// --- schedules (methods A.0 to A.3) --------------------------------------------------------------------------------

struct schedule {
    const struct schedule_row *kind;
    double lr;            // peak; for power the cap eta_max
    double total, warmup; // tokens; total may be INFINITY. Warmup is linear from 0 to the curve's value at `warmup`
    double decay;         // tokens of the last phase of rows with a curve: begins at max(warmup, total - decay)
    const struct decay_row *shape;
    double final;         // floor as a fraction of the peak or, of a decay, of the rate it began at
    double power_a, power_b; // 4, -0.51 (Shen et al. 2024)
    double power_c;       // exponent of batches below POWER_LEAST_BATCH tokens, 0.67; 1: in proportion, as above it
    double phi;           // uba: 2 is the cosine, below it falls later
    double cool, hold;    // infinite: tokens of its first fall, and the share of lr that it falls to
    double batch;         // tokens per step; beta = batch / 4096
    double seen;          // tokens that the model had learned from before this run: power and infinite count them
};
enum { POWER_LEAST_BATCH = 1 << 16 }; // tokens; the smallest batch the power law was fitted with
struct schedule_row {
    const char *name;
    // One of two. The rate at n tokens without warmup and decay, which knows no horizon: a decay phase of `decay` tokens
    // follows. Or the share of lr at u of the way from warmup to total, for schedules that are one shape as a whole.
    double (*curve)(const struct schedule *s, double n);
    double (*over)(double u, const struct schedule *s);
    const char *help, *source;
};
struct decay_row {
    const char *name;     // "1-sqrt", "linear", ...
    double (*factor)(double u, const struct schedule *s); // u in [0,1]: 1 at 0, s->final at 1
    const char *help;
};
extern const struct schedule_row schedules[];
extern const struct decay_row decays[];
extern const int schedule_count, decay_count;
const struct schedule_row *schedule_find(const char *name); // NULL when unknown
const struct decay_row *decay_find(const char *name);
// Learning rate of the step that begins when n tokens are done and ends at n + batch. What rises (warmup) is read at
// the end of the step, what falls (curve, decay) at its beginning: the first step of a warmup is not zero, the last
// step of a decay to zero is not lost, and n = 0 needs no special case. Until the decay begins, rows with
// a curve do not depend on `total`: a run may be prolonged.
double schedule_lr(const struct schedule *s, double n);

// --- batch (methods A.4 to A.6) --------------------------------------------------------------------------------------

// What the gradient's norms say about its noise. Start with {0}; part of the checkpoint.
struct noise {
    double signal, trace; // moving averages: |G|^2, and the trace of the covariance of one token's gradient
    double steps;         // that went into them
};
// From one step: squared norms of the mean gradient over its first b tokens and over all B > b, before clipping.
void noise_add(struct noise *z, double b, double small, double B, double large);
double noise_scale(const struct noise *z); // trace / signal in tokens; NaN before ten steps, or when nothing is known

struct batch_rule {
    const struct batch_row *kind;
    double least, most;   // tokens, whole sequences: the smallest batch, and the largest
    double ramp, theta;   // tokens of the ramp; theta of the norm test (.1 to .5 in the paper)
    int64_t T;            // tokens of a sequence
    // The rest is state and part of the checkpoint; 0 at the start.
    int64_t now;          // the last batch: a batch never shrinks
    double judged;        // steps of the noise when `adaptive` last looked
    struct noise noise;
};
struct batch_row {
    const char *name;
    double (*size)(struct batch_rule *r, double n); // tokens wanted when n are done
    const char *help, *source;
};
struct batch_lr_row {
    const char *name;
    double (*factor)(double B, double at, double noise); // rate of batch B over that of batch `at`; noise may be NaN
    const char *help, *source;
};
extern const struct batch_row batch_rules[];
extern const struct batch_lr_row batch_lr_rules[];
extern const int batch_rule_count, batch_lr_rule_count;
const struct batch_row *batch_rule_find(const char *name); // NULL when unknown
const struct batch_lr_row *batch_lr_rule_find(const char *name);
int64_t batch_next(struct batch_rule *r, double n); // tokens of the step that begins at n, a multiple of T
double step_law_batch(double tokens); // 0.58 D^0.571 (Li et al. 2025), half of it below 100M tokens

// --- rules (methods A.3, A.4): numbers that nobody gave ------------------------------------------------------------------

// What is known when a number is wanted; 0: nothing is. A rule's row says in its comment or help what it looks at.
struct known {
    double params, body;  // weights; those without the embedding
    double tokens, batch; // of the run, of a step
    double text, ratio;   // tokens of the text; tokens a parameter
    double seconds, pace; // of a run that the clock ends; tokens a second
    bool mup, power;      // the model's parametrization; the schedule is power
    bool goes_on;         // the weights are those of a model
};
struct rule {
    const char *name; // of the option whose place it takes; several rows may have one name
    bool (*holds)(const struct known *k); // NULL: always
    double (*value)(const struct known *k);
    double (*of)(const struct known *k); // fitted for `of`, so many `what`, from low to high; NULL: no law
    const char *what;
    double low, high;
    const char *help, *source;
};
extern const struct rule rules[];
extern const int rule_count;
const struct rule *rule_find(const char *name, const struct known *k); // the first row of that name that holds
double rule_value(const char *name, const struct known *k);
bool rule_is_inside(const struct rule *rule, const struct known *k); // of what it was fitted for
double step_law_lr(double body, double tokens); // 1.79 N^-0.713 D^0.307

// --- optimizers (methods C) ----------------------------------------------------------------------------------------

// Weight decay is coupled with the rate as in PyTorch: w -= lr * (step + weight_decay * w), so under muP it falls with
// lr / m_width as in nanoGPT-mup and IBM's engine (methods B.1). Norms do not decay (param.decay).
struct optimizer_options {
    double beta1, beta2, eps, weight_decay, clip; // adamw: .9 .95 1e-8 .1 1.0; clip 0: off
    double momentum;                              // muon, on hidden matrices: .95
    const struct optimizer_row *row;              // NULL: adamw
};
struct optimizer; // a model's, with its blocks of state on the device
struct one;       // one parameter of a step
enum { OPTIMIZER_BLOCKS = 3 };
struct optimizer_row {
    const char *name;
    const char *block[OPTIMIZER_BLOCKS]; // names of the state it keeps, f32
    int64_t (*floats)(const struct model *m, const struct param *p, int block); // of a parameter in a block
    int64_t (*room)(const struct model *m, const struct param *p); // floats of scratch that the step of a parameter needs; NULL: none
    void (*step)(const struct optimizer *o, const struct one *x);
    bool by_matrix;      // a step looks at a matrix as a whole: of experts at each by itself
    double beta1, beta2; // when nothing is said
    double lr;           // its rates are about so many times AdamW's
    const char *help, *source;
};
extern const struct optimizer_row optimizers[]; // the first is the default
extern const int optimizer_count;
const struct optimizer_row *optimizer_find(const char *name); // NULL when unknown
size_t optimizer_bytes(const struct optimizer_row *row, const struct model_config *c); // what optimizer_new allocates on the device
struct optimizer *optimizer_new(struct model *m, const struct optimizer_options *o, struct err *err);
void optimizer_free(struct optimizer *o);
size_t optimizer_state_bytes(const struct optimizer *o); // that a checkpoint holds
double optimizer_grad_norm(struct optimizer *o); // global, before clipping; NaN or inf shows here: do not step then
// From that call's sums: norms of the gradient's parts, L + 2 of them: embedding, blocks, what is behind them.
void optimizer_layer_norms(const struct optimizer *o, float *to);
// The parameter whose gradient backward met first as not finite (from that call), and the first one that is not finite
// itself; NULL: none.
const struct param *optimizer_bad_gradient(const struct optimizer *o);
const struct param *optimizer_bad_weight(struct optimizer *o);
// Scales the gradients by min(1, clip / (grad_norm + 1e-6)), updates with lr * param.lr_scale, refreshes bf16 copies.
// step counts from 1 (bias correction). grad_norm must be finite.
void optimizer_step(struct optimizer *o, double lr, double grad_norm, int64_t step);
// The same for the optimizer's state as model_shadow is for weights: for files only, and no longer than o and shadow live.
struct optimizer *optimizer_shadow(const struct optimizer *o, struct model *shadow, struct err *err);
void optimizer_shadow_take(struct optimizer *shadow, const struct optimizer *o); // freed by optimizer_free
// Puts the weights that are to be judged and kept in the place of those that are trained, and back when called again, bit
// for bit. False when they are the same, which is so but for schedule-free.
bool optimizer_swap(struct optimizer *o);
void optimizer_keys(const struct optimizer *o, struct gguf_out *out);
void optimizer_declare(struct optimizer *o, struct gguf_out *out); // tensors "optimizer.<block>.<param>"
void optimizer_write_data(struct optimizer *o, struct gguf_out *out);
MUST_USE bool optimizer_read(struct optimizer *o, const struct model_file *f, struct err *err);

// Skips updates that are not finite or far above recent history: (x - mean) / std of loss or gradient norm over
// `limit`, against the last 128 kept steps (at least 32 of them). Only what is too large counts, so a falling loss is
// never judged. std is at least 1% of the mean for the loss and 10% for the norm: a flat history does not make every
// step an outlier. GUARD_PATIENCE outliers one after the other are no accident of a batch but a new level: history is
// forgotten and the last of them kept, so a run cannot be stuck. Non-finite steps have no such end: the caller stops
// when in_a_row grows. State is part of the checkpoint. Start with {.limit = 6}.
//
// A caller that can go back to an earlier state sets goes_back: no new level is accepted then, and when guard_lost gives a
// reason the run is to return. That is after GUARD_PATIENCE skipped steps in a row, whatever their reasons: weights do not
// change in them, so either the weights or the data are bad; or when the mean loss of the last GUARD_PATIENCE kept steps is
// limit / 2 deviations above that of the up to 120 before them: a rise so slow that no step was skipped (by chance such a
// mean lies 8 of its own deviations away, for the default limit). guard_calm: nothing
// was skipped of late, the rise is below one deviation and the history is long enough to say so: a state to go back to.
#define GUARD_WINDOW 128
#define GUARD_PATIENCE 8
struct guard {
    double loss[GUARD_WINDOW], norm[GUARD_WINDOW]; // rings: kept step k is at k % GUARD_WINDOW
    int64_t count;      // kept steps in the history (since it was last forgotten)
    int64_t skipped, in_a_row; // skipped steps ever, and since the last kept one
    double limit;       // 0: only non-finite; default 6
    bool goes_back;     // the caller's, not in checkpoints
};
enum guard_verdict { GUARD_KEEP, GUARD_NOT_FINITE, GUARD_LOSS, GUARD_NORM };
enum guard_verdict guard_judge(struct guard *g, double loss, double grad_norm); // records what it keeps
const char *guard_lost(const struct guard *g); // NULL: go on
bool guard_calm(const struct guard *g);
const char *guard_name(enum guard_verdict v); // "kept", "not finite", "loss", "gradient norm"

// --- data ----------------------------------------------------------------------------------------------------------

// Text in documents, from
//   files      a file without a marker line is one document, byte for byte. Otherwise documents are what lies between
//              lines that are exactly "<|endoftext|>" (LF or CRLF); the line end before such a line belongs to it, and
//              so does one blank line on either side; the end of the file counts as a marker line
//   *.jsonl    one object a line, its "text" member is a document; blank lines are fine, anything else is an error
//   folders    sorted by name, recursive: *.txt *.md *.text *.jsonl *.tok; what else is there is skipped and noted
//   -          standard input, and pipes, read as text
//   *.tok      token shards
// Empty documents are dropped. Bytes are not changed otherwise: no trimming, no CRLF or UTF-8 repair.
struct corpus {
    struct text bytes;        // all documents' bytes back to back (text sources)
    size_t *doc_end;          // end offset of each document
    size_t n_docs, cap_docs;
    struct opt_words shards;  // .tok files, used as they are; words owned by the corpus
    struct text notes;        // what was skipped and why, one line each
};
// Overwrites *c. False leaves it empty. A corpus without any document or shard is an error.
MUST_USE bool corpus_read(struct corpus *c, const char *const *paths, size_t n, struct err *err);
void corpus_free(struct corpus *c);

// Tokens of a split: documents one after the other, each ended by EOS (when the tokenizer has one) and, for
// tokenizers with a separate BOS that want it, begun by BOS. Held in memory or mapped from a .tok file.
struct tokens {
    const uint16_t *t16; // one of the two, by vocabulary
    const uint32_t *t32;
    int64_t count;
    int32_t eos;         // -1: none
    int32_t start;       // a row with this id begins a document: BOS where documents begin with it, else EOS, else -1
    double bytes;        // bytes of text these tokens stand for, plus 1 per end mark: nats per byte are over both
    int64_t documents;
    uint64_t hash;       // of the ids: the identity of the data in checkpoints and logs
    const char *split;   // how it was cut, a literal: "whole", "by document", "by position", "by window"
    struct soft *soft;   // of a draft's tokens: where targets come from (distil.h), and where texts begin; else NULL. Owned
    struct file_map map; // when mapped
    void *owned;
};
static inline int32_t tokens_at(const struct tokens *t, int64_t i) { return t->t16 ? t->t16[i] : (int32_t)t->t32[i]; }
// Splits by document: a document goes to validation when the hash of its bytes falls below valid_share, so whoever
// has the document has it on the same side, and copies of it share a side. Where that cannot give about valid_share
// (fewer than 20 documents, or the bytes of either side come out over 3 times too many or too few) the text is cut by
// position: validation is the last valid_share of the bytes, from the last line end before that place when there is
// one within 1 KB, else from the last UTF-8 boundary; a document cut in two gets an end mark on both sides. Token
// shards are cut by position, each after the last end mark before the place. Encodes with all threads; the result
// does not depend on their number. valid may be NULL when valid_share is 0. A single shard without text stays mapped,
// and then valid looks into train's map: free train last.
MUST_USE bool tokens_make(const struct corpus *c, const struct tokenizer *t, double valid_share, struct tokens *train,
                          struct tokens *valid, struct err *err);
// Token file, little-endian: "LEHRTOK1", tokenizer hash u64, id bytes u32 (2 or 4), eos i32, count u64, text bytes
// f64, documents u64, start i32, 12 zero bytes: 64 in all; then the ids. Opening checks every id against the
// vocabulary.
MUST_USE bool tokens_write(const struct tokens *t, uint64_t tokenizer_hash, const char *path, struct err *err);
MUST_USE bool tokens_open(struct tokens *t, const char *path, uint64_t tokenizer_hash, int64_t vocab, struct err *err);
void tokens_free(struct tokens *t);

// Training sequence number s of a run (tokens done / T): ids and targets of T rows, a pure function of (tokens, T,
// seed, s). The tokens are a ring. Epoch e cuts loader_epoch(t, T) windows of T from it, from a place drawn for the
// epoch, in an order drawn for the epoch; so each token is an input at most once per epoch, fewer than T are left
// out, others each time. The target of a row is the next token: a document's last row predicts its EOS; EOS as input
// begins the next document, as its BOS. A separate BOS is never a target (-1: nothing is learned from it). doc_start:
// base + the row of this sequence where the row's document begins. Needs t->count > T, which callers check. With t->soft targets
// are drawn, anew in each epoch.
int64_t loader_epoch(const struct tokens *t, int64_t T); // sequences per epoch
void loader_sequence(const struct tokens *t, int64_t T, uint64_t seed, int64_t s, int32_t base, int32_t *ids,
                     int32_t *targets, int32_t *doc_start);
// Several texts in one run. Each has a share of the run's sequences (of the sum of shares; the first one's is above 0), spread
// evenly: of any first 64 k sequences the last text has its share within one, those between within a few. The texts and their
// order are part of what a run is.
enum { MIXTURE_MOST = 8 };
struct mixture {
    int count;
    const struct tokens *tokens[MIXTURE_MOST]; // borrowed
    double share[MIXTURE_MOST];
};
// Whose the run's sequence *s is; *s becomes its number among that text's own. A pure function, as is the order in a text.
int mixture_source(const struct mixture *m, uint64_t seed, int64_t *s);
void mixture_sequence(const struct mixture *m, int64_t T, uint64_t seed, int64_t s, int32_t base, int32_t *ids, int32_t *targets,
                      int32_t *doc_start); // as loader_sequence
uint64_t mixture_hash(const struct mixture *m); // of one text: that text's
// Validation windows in order, no shuffling: row r of window w predicts token w T + r from what stands before it in
// the window, so every token is scored exactly once. The very first is predicted from t->start (not scored when there
// is none); the last window is filled up with rows of target -1. T may exceed t->count. With t->soft: one draw, always the same.
int64_t loader_windows(const struct tokens *t, int64_t T);
void loader_window(const struct tokens *t, int64_t T, int64_t w, int32_t base, int32_t *ids, int32_t *targets,
                   int32_t *doc_start);

// --- checkpoints ---------------------------------------------------------------------------------------------------

struct run_state { // everything that is not a tensor
    int64_t step, tokens;       // done
    int64_t batch_tokens, T;    // of the largest batch
    uint64_t seed, data_hash;
    struct guard guard;
    struct batch_rule batch;    // only its state is in checkpoints
    double seconds;             // spent training, for logs
    // Going back: when a run is lost it returns to the state at `good` tokens and goes on with the data behind what it saw.
    int64_t good, rollbacks, again; // good: -1 none; returns ever, and to this good state
    int64_t passed;             // sequences passed over: the step at n tokens begins with sequence n / T + passed
    // When the run began: what its model had learned from, and how many steps its optimizer's state was the sum of.
    int64_t tokens_before, steps_before;
    struct text options;        // the option table as text, one `name = value` a line; owned by whoever fills it
};
// OUT/ckpt-<tokens>.gguf: model + tokenizer + moments + train.* keys, sealed. Then removes all but the newest `keep`
// files (all stay when keep is 0); files that claim more tokens than this one are left alone. Also removes
// temporaries of killed processes. False on a full disk and the like: the old files are untouched.
MUST_USE bool checkpoint_save(const char *folder, const struct model *m, const struct tokenizer *t,
                              struct optimizer *o, const struct run_state *r, int keep, struct err *err);
size_t checkpoint_bytes(const struct model_config *c, const struct tokenizer *t, size_t optimizer_bytes); // of a file, at the most
// Keeps in `good` of the checkpoints up to `tokens` the newest, and for each checkpoint in `folder` the newest up to it; all
// others go. Where a folder cannot be read, nothing.
void checkpoint_thin(const char *good, const char *folder, int64_t tokens);
void checkpoint_drop_after(const char *folder, int64_t tokens); // removes those with more tokens
int64_t checkpoint_count(const char *folder);                   // 0 when it cannot be read

// Saving beside the steps: the state is copied, at the speed of memory, and a thread that takes little of the time (aside in
// core.h) writes the copy with checkpoint_save. One save at a time: a second waits for the first.
struct saver;
// NULL with a reason when there is no memory for the copy, which is taken and touched here.
struct saver *saver_new(const struct model *m, const struct optimizer *o, struct err *err);
void saver_free(struct saver *s); // waits; NULL is fine
struct saved { // what became of the last save
    const char *folder; // of the saver
    int64_t tokens;
    double copy_s, seconds; // of copying, and of all
    bool good;
    struct err err; // why not
};
void saver_start(struct saver *s, const char *folder, const struct model *m, const struct tokenizer *t, const struct optimizer *o,
                 const struct run_state *r, int keep);
// True once for every save, when it is done; with `wait` it is waited for. Each is to be asked for before the next starts.
bool saver_done(struct saver *s, bool wait, struct saved *what);
size_t saver_bytes(const struct model_config *c, size_t optimizer_state_bytes);

// Newest file in folder that is whole (seal); names skipped ones in notes. False when there is none (err empty) or
// the folder cannot be read. path is owned by the caller. A folder that does not exist holds none.
MUST_USE bool checkpoint_newest(const char *folder, char **path, struct text *notes, struct err *err);
// Reads the train.* keys of one checkpoint into *r (overwritten); the caller frees r->options, makes the model and
// reads tensors. o may be NULL.
MUST_USE bool checkpoint_read_state(const struct model_file *f, struct run_state *r, struct err *err);
MUST_USE bool checkpoint_read_tensors(const struct model_file *f, struct model *m, struct optimizer *o, struct err *err);
// The clean model: weights + tokenizer, without training state or seal. It is written beside path, read back, its
// logits for a fixed text compared with those of m (limits by dtype, told in notes), and only then put in place.
// Needs memory for a second model: freeing the optimizer and the training state first keeps a run within its plan.
MUST_USE bool checkpoint_export(const char *path, struct model *m, const struct tokenizer *t, enum dtype matrices,
                                struct text *notes, struct err *err);

// --- log and report ------------------------------------------------------------------------------------------------

// OUT/log.jsonl: one object per step:
//   step, tokens, loss (nats per token), lr, grad_norm, dt_ms, tok_per_s, batch, noise (both in tokens), skipped
//   (reason, only then), and with experts aux_loss (balance and router_z of the objective, not in loss), imbalance
//   (train_imbalance); with an exit exit_loss (nats per token, not in loss), in evaluations too;
//   evaluations: step, tokens, val_loss (nats per token), val_nats_per_byte; with --replay val_loss_replay, of that text;
//     of a draft acceptance and agreement (distil.h);
//     and with experts: experts, for each layer how many rows of the last step chose each;
//   cool-downs aside: step, tokens, cooled_tokens, cooled_loss, cooled_nats_per_byte;
//   returns: step and tokens of the state gone back to, rollback (how many there were), back_from (tokens), why,
//   passed_from, passed_to (sequences that are not learned from). Later rows carry `rollback` too; rows of what was
//   returned from stay, with fewer.
// Members that are not finite are left out. Losses, lr and grad_norm have all the digits that read back the same, so
// the logs of equal runs are equal but for dt_ms and tok_per_s. Each line is one write.
struct log_list {
    const float *x;
    int64_t n;
};
struct log_row {
    int64_t step, tokens;
    double loss, lr, grad_norm, dt_ms, tok_per_s;
    double val_loss, val_nats_per_byte; // NaN when this row is no evaluation, as the five above when it is one
    double val_loss_replay;             // of held-out old text; NaN: there is none
    double acceptance, agreement;       // of a draft with its target (distil.h); NaN: it is none
    const char *skipped;                // NULL when kept
    double batch, noise;                // tokens of the step, noise scale in tokens; 0: not known
    // A row of its own: what the run would be worth had it been cooled down from here until cooled_tokens; else 0.
    int64_t cooled_tokens;
    double cooled_loss, cooled_nats_per_byte;
    int64_t rollback, back_from, passed_from, passed_to;
    const char *why;
    double peak_share;                  // of what the processor can do: operations of the model a second
    struct log_list layer_norms;        // of the gradient: embedding, blocks, and what is behind them
    const char *sample;                 // of an evaluation
    bool undone;                        // set by log_read: the run went back behind this row
    double aux_loss, imbalance; // 0: no experts
    double exit_loss;           // of a step or an evaluation; 0: no exit
    const int32_t *use;         // [layers*experts], NULL when not told
    int64_t layers, experts;
};
struct log_row log_row_at(int64_t step, int64_t tokens); // all else is absent
struct log_file;
// Opens for appending after dropping rows of more than so many rollbacks, those of as many with more than keep_tokens (a
// resume; -1 drops all) and a torn end. NULL on
// failure, also when a line in the middle is no row: then the file is untouched. Adding a row allocates nothing; a
// write error sticks and is told by close, which frees l in any case (NULL is fine).
struct log_file *log_open(const char *path, int64_t keep_tokens, int64_t rollbacks, struct err *err);
void log_add(struct log_file *l, const struct log_row *row);
MUST_USE bool log_close(struct log_file *l, struct err *err);
struct log_rows {
    struct log_row *row;
    size_t count, cap;
};
// Absent members are NaN; unknown ones and a torn end are passed over; any other bad line is an error that names it.
MUST_USE bool log_read(const char *path, struct log_rows *rows, struct err *err);
void log_rows_free(struct log_rows *rows);
// The same rows as an event file for TensorBoard in a folder; step: rows of earlier files from there on are forgotten.
// Adding allocates nothing; a write error sticks and is told by close, which frees b in any case (NULL is fine).
struct board;
struct board *board_open(const char *folder, int64_t step, struct err *err);
void board_add(struct board *b, const struct log_row *row);
MUST_USE bool board_close(struct board *b, struct err *err);
uint32_t crc32c(const void *bytes, size_t n);
// One self-contained page: loss, learning rate, gradient norm, tokens/s as SVG, facts as a table, samples. facts:
// name, value, name, value, ...; n_facts counts the pairs.
struct report {
    const char *title;
    const struct log_rows *rows;
    const char *const *facts;
    size_t n_facts;
    const char *const *samples;
    size_t n_samples;
    double floor_nats_per_byte; // entropy of the source when known, else NaN; drawn as a line
};
MUST_USE bool report_write(const char *path, const struct report *r, struct err *err);

// --- coordinate check (methods B.5) ---------------------------------------------------------------------------------

enum coord { COORD_EMBEDDING, COORD_SCORES, COORD_ATTENDED, COORD_ATTENTION_OUT, COORD_GATE, COORD_FFN_OUT, COORD_BLOCK_OUT, COORD_LOGITS, COORD_ANSWER, COORD_COUNT };
extern const char *const coord_names[COORD_COUNT];
enum { COORD_LAYERS_MAX = 64, COORD_PROBES = 4 }; // sequences that are looked at: the first ones of the data
struct coord_run {
    struct model_config config;
    const struct backend *backend;
    struct optimizer_options optimizer;
    const struct tokens *data;
    int64_t T, batch; // tokens of a sequence, sequences of a step
    int64_t steps;
    uint64_t seed;
    double lr;        // base rate, the same in every step
};
struct coord_sizes {  // means of |x| and of |x - x at the start| after a step, by enum coord
    double size[COORD_COUNT], change[COORD_COUNT];
};
// sizes: steps + 1 entries, the first before any step.
MUST_USE bool coords_run(const struct coord_run *r, struct coord_sizes *sizes, struct err *err);
double log_slope(const double *x, const double *y, size_t n); // of log y against log x, least squares

// --- plan ----------------------------------------------------------------------------------------------------------

struct plan_of { // the run in question
    const struct model_config *config;
    const struct backend *backend;
    enum dtype compute;
    const struct optimizer_row *optimizer;
    int64_t micro_rows, T, batch_tokens, tokens; // micro_rows: tokens of a micro-batch, a multiple of T
    size_t data_bytes; // data that is still to come into memory
    size_t memory;     // what activations may take; 0: what is free, and in any case as much as they need at the least
};
struct plan {
    int64_t params, tokens, steps;
    int64_t batch_tokens;
    size_t weights_bytes, grads_bytes, moments_bytes, activations_bytes, data_bytes;
    size_t copy_bytes;      // of the state, for writing beside the steps; 0: none
    size_t memory;              // what activations may take
    struct recompute again;     // what that costs
    int64_t layers;
    size_t base_bytes;      // resident when the plan was made
    size_t scratch_bytes;   // kernels' scratch and tables, as measured
    size_t peak_bytes;      // all of these, or what the process needed so far if that is more
    size_t available_bytes; // free memory when the plan was made, 0 when unknown
    size_t checkpoint_bytes;
    double flops, tokens_per_s, seconds; // tokens_per_s from a short real measurement of this very configuration
};
// Runs a few real micro-batches and updates on a throw-away model of this config (about 2 seconds) and adds it up. A
// model that is too large for this is measured at one and two layers.
MUST_USE bool plan_make(struct plan *p, const struct plan_of *of, struct err *err);
// Only what is known without running: no scratch, peak and time. False when the activations cannot fit.
MUST_USE bool plan_memory(struct plan *p, const struct plan_of *of, struct err *err);
// A line about what is computed again in the backward pass; "" when all is kept.
const char *plan_recomputed(char buf[160], const struct plan *p);
// With a second copy of weights and moments, where it fits.
void plan_add_copy(struct plan *p);
void plan_print(const struct plan *p, FILE *to);

#endif
