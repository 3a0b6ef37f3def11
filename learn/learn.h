// learn: from data to weights.
//
// Learning rate, batch and data order are pure functions of the token index and the seed, so a run has no scheduler or
// loader state: a checkpoint is weights, moments and a handful of integers, and resuming is exact.
#ifndef LEHR_LEARN_H
#define LEHR_LEARN_H

#include "core/core.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

// --- schedules (methods A.0 to A.3) --------------------------------------------------------------------------------

struct schedule {
    const struct schedule_row *kind;
    double lr;            // peak (wsd, cosine, linear, constant), cap eta_max (power)
    double total, warmup; // tokens; warmup is linear from 0: at n tokens done, the step ending at n + batch uses (n+batch)/warmup
    double decay;         // tokens of the last phase (power, wsd)
    const struct decay_row *shape;
    double final;         // floor as a fraction of the peak (cosine, linear) or of the rate at decay start (wsd, power)
    double power_a, power_b; // 4, -0.51 (Shen et al. 2024)
    double batch;         // tokens per step; beta = batch / 4096
};
struct schedule_row {
    const char *name;
    double (*lr)(const struct schedule *s, double n); // n: tokens trained before the step, plus half... see schedule_lr
    bool decays;          // has a decay phase of `decay` tokens
    const char *help, *source;
};
struct decay_row {
    const char *name;     // "linear", "1-sqrt", "exponential", "cosine"
    double (*factor)(double u, double final); // u in [0,1]: 1 at 0, final at 1
    const char *help;
};
extern const struct schedule_row schedules[];
extern const struct decay_row decays[];
extern const int schedule_count, decay_count;
const struct schedule_row *schedule_find(const char *name);
const struct decay_row *decay_find(const char *name);
// Learning rate of the step that begins when n tokens are done. Evaluated at n + batch, the tokens done when the
// step ends, so the first step of a warmup is not lost and n = 0 needs no special case.
double schedule_lr(const struct schedule *s, double n);

// --- optimizers (methods C) ----------------------------------------------------------------------------------------

struct optimizer_options {
    double beta1, beta2, eps, weight_decay, clip; // .9 .95 1e-8 .1 1.0; clip 0: off
};
struct optimizer; // moments of every parameter, in the model's order: two f32 blocks on the device
size_t optimizer_bytes(const struct model_config *c);
struct optimizer *optimizer_new(struct model *m, const struct optimizer_options *o, struct err *err);
void optimizer_free(struct optimizer *o);
double optimizer_grad_norm(struct optimizer *o); // global, before clipping; NaN or inf shows here
void optimizer_step(struct optimizer *o, double lr, double grad_norm, int64_t step); // clips, updates, refreshes copies
void optimizer_declare(const struct optimizer *o, struct gguf_out *out); // tensors "adam.m.<param>", "adam.v.<param>"
void optimizer_write_data(const struct optimizer *o, struct gguf_out *out);
MUST_USE bool optimizer_read(struct optimizer *o, const struct model_file *f, struct err *err);

// Skips updates that are not finite or far outside recent history: z-score above `limit` of loss or gradient norm against
// the last 128 kept steps (at least 32 of them). State is part of the checkpoint.
struct guard {
    double loss[128], norm[128];
    int64_t count;      // kept steps so far
    int64_t skipped, in_a_row;
    double limit;       // 0: only non-finite; default 6
};
enum guard_verdict { GUARD_KEEP, GUARD_NOT_FINITE, GUARD_LOSS, GUARD_NORM };
enum guard_verdict guard_judge(struct guard *g, double loss, double grad_norm); // records what it keeps
const char *guard_name(enum guard_verdict v);

// --- data ----------------------------------------------------------------------------------------------------------

// Text in documents: from files (.txt: documents split at lines "<|endoftext|>", else one per file), .jsonl ("text"
// member), folders (sorted, recursive), "-" standard input, token shards (*.tok).
struct corpus {
    struct text bytes;        // all documents' bytes back to back (text sources)
    size_t *doc_end;          // end offset of each document
    size_t n_docs, cap_docs;
    struct opt_words shards;  // .tok files, used as they are
};
MUST_USE bool corpus_read(struct corpus *c, const char *const *paths, size_t n, struct err *err);
void corpus_free(struct corpus *c);

// Tokens of a split: documents one after the other, each ended by EOS. Held in memory or mapped from a .tok file.
struct tokens {
    const uint16_t *t16; // one of the two, by vocabulary
    const uint32_t *t32;
    int64_t count;
    int32_t eos;
    double bytes;        // bytes of text these tokens stand for (documents + 1 per end mark), for nats per byte
    int64_t documents;
    uint64_t hash;       // of the ids: the identity of the data in checkpoints and logs
    struct file_map map; // when mapped
    void *owned;
};
static inline int32_t tokens_at(const struct tokens *t, int64_t i) { return t->t16 ? t->t16[i] : (int32_t)t->t32[i]; }
// Splits by document: a document goes to validation when its hash falls below valid_share; a corpus of fewer than
// 20 documents is cut by position instead, the last valid_share of its bytes. Encodes with all threads.
MUST_USE bool tokens_make(const struct corpus *c, const struct tokenizer *t, double valid_share, struct tokens *train,
                          struct tokens *valid, struct err *err);
// Token file: "LEHRTOK1", tokenizer hash u64, id bytes u32 (2 or 4), eos i32, count u64, text bytes f64, documents u64, ids.
MUST_USE bool tokens_write(const struct tokens *t, uint64_t tokenizer_hash, const char *path, struct err *err);
MUST_USE bool tokens_open(struct tokens *t, const char *path, uint64_t tokenizer_hash, int64_t vocab, struct err *err);
void tokens_free(struct tokens *t);

// Sequence number s of a run (token index / T): ids and targets of T rows, a pure function of (tokens, T, seed, s). Epoch
// e covers the tokens in windows of T from an offset drawn for the epoch, in an order drawn for the epoch. doc_start: row
// where the document of each row starts within the sequence (base is added). With one document: all `base`.
void loader_sequence(const struct tokens *t, int64_t T, uint64_t seed, int64_t s, int32_t base, int32_t *ids,
                     int32_t *targets, int32_t *doc_start);
// Validation windows in order, no shuffling: window w of loader_windows(t, T).
int64_t loader_windows(const struct tokens *t, int64_t T);
void loader_window(const struct tokens *t, int64_t T, int64_t w, int32_t base, int32_t *ids, int32_t *targets,
                   int32_t *doc_start);

// --- checkpoints ---------------------------------------------------------------------------------------------------

struct run_state { // everything that is not a tensor
    int64_t step, tokens;       // done
    int64_t batch_tokens, T;
    uint64_t seed, data_hash;
    struct guard guard;
    double seconds;             // spent training, for logs
    struct text options;        // the option table as text, one `name = value` a line
};
// OUT/ckpt-<tokens>.gguf: model + tokenizer + moments + train.* keys, sealed. Keeps the newest `keep` files. False on a full
// disk and the like: the old files are untouched.
MUST_USE bool checkpoint_save(const char *folder, const struct model *m, const struct tokenizer *t,
                              const struct optimizer *o, const struct run_state *r, int keep, struct err *err);
// Newest file in folder that is whole (seal); names skipped ones in notes. False when there is none (err empty) or
// the folder cannot be read. path is owned by the caller.
MUST_USE bool checkpoint_newest(const char *folder, char **path, struct text *notes, struct err *err);
// Reads the train.* keys of one checkpoint; the caller then makes the model and reads tensors.
MUST_USE bool checkpoint_read_state(const struct model_file *f, struct run_state *r, struct err *err);
MUST_USE bool checkpoint_read_tensors(const struct model_file *f, struct model *m, struct optimizer *o, struct err *err);
// The clean model: weights + tokenizer, then read back and compared.
MUST_USE bool checkpoint_export(const char *path, const struct model *m, const struct tokenizer *t, enum dtype matrices,
                                struct text *notes, struct err *err);

// --- log and report ------------------------------------------------------------------------------------------------

// OUT/log.jsonl: one object per step:
//   step, tokens, loss (nats per token), lr, grad_norm, dt_ms, tok_per_s, skipped (reason, only then);
//   evaluations: step, tokens, val_loss, val_bpb... (val_nats_per_byte); flushed line by line.
struct log_row {
    int64_t step, tokens;
    double loss, lr, grad_norm, dt_ms, tok_per_s;
    double val_loss, val_nats_per_byte; // NaN when this row is no evaluation
    const char *skipped;                // NULL when kept
};
struct log_file;
// Opens for appending after dropping rows beyond keep_tokens (a resume) and a torn last line.
struct log_file *log_open(const char *path, int64_t keep_tokens, struct err *err);
void log_add(struct log_file *l, const struct log_row *row);
MUST_USE bool log_close(struct log_file *l, struct err *err);
struct log_rows {
    struct log_row *row;
    size_t count, cap;
};
MUST_USE bool log_read(const char *path, struct log_rows *rows, struct err *err);
// One self-contained page: loss, learning rate, gradient norm, tokens/s as SVG, facts as a table, samples. facts: name,
// value, name, value, ...
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

// --- plan ----------------------------------------------------------------------------------------------------------

struct plan {
    int64_t params, tokens, steps;
    size_t weights_bytes, grads_bytes, moments_bytes, activations_bytes, data_bytes, base_bytes, peak_bytes;
    size_t checkpoint_bytes;
    double flops, tokens_per_s, seconds; // tokens_per_s from a short real measurement of this very configuration
};
// Runs a few real micro-batches and one update on a throw-away model of this config (about 2 seconds) and adds it up.
MUST_USE bool plan_make(struct plan *p, const struct model_config *c, const struct backend *b, enum dtype compute,
                        int64_t micro_rows, int64_t T, int64_t batch_tokens, int64_t tokens, size_t data_bytes,
                        struct err *err);
void plan_print(const struct plan *p, FILE *to);

#endif
