// train_options.h: what ./train can be told, and what that came to.
#ifndef LEHR_TRAIN_OPTIONS_H
#define LEHR_TRAIN_OPTIONS_H

#include "core/core.h"
#include "formats/formats.h"

// What the user said, defaults included; --help explains each.
struct train_options {
    struct opt_words data, valid, replay, ladder, tune_what;
    const char *out, *config, *from, *family, *size, *tokenizer, *schedule, *decay_shape, *decay_from, *dtype, *device, *cpu, *batch_rule, *batch_lr, *optimizer,
        *export_dtype, *draft_for, *plot, *watch, *tensorboard, *prompt, *check_widths, *balance, *depth_rule;
    int64_t width, layers, heads, kv_heads, head_size, ffn, experts, experts_used, base_layers;
    int64_t from_tokens, rollback, seq, batch_tokens, batch_least, micro_batch, memory, tokens, steps, decay_tokens, seed, threads;
    int64_t draft_tokens, draft_vocab, exit_layer;
    int64_t tune_width, tune_tokens, save_every, keep, eval_every, eval_tokens, eval_sample, samples, tokenizer_bytes, story_bytes;
    double tune_time, replay_share, ratio, time, lr, warmup, decay, final, phi, hold, cool, batch_ramp, batch_theta, probe_decay, probe_share, power_a, power_b, power_c, beta1, beta2, momentum, eps, weight_decay, clip, guard, valid_share,
        save_seconds, peak, floor, embedding_scale, attention_scale, residual_scale, init_std, balance_coef, router_z, head_z, exit_weight, dropout;
    bool override, resume, save_aside, plan, tune, coord_check, profile, list, help, version, tied, doc_mask;
};
extern struct train_options opts;
extern struct opt train_table[]; // --data stays first: words without an option go there
extern const size_t train_table_count;

// What the options came to: every number a step depends on, with nothing left open. Kept in checkpoints after the options.
struct train_amounts {
    int64_t tokens, batch_tokens, decay_tokens; // tokens 0: not placed yet, --time will
    double lr, warmup, power_a, decay, cool, batch_ramp; // decay: the share; cool, batch_ramp: tokens
};
extern struct train_amounts amount;
extern struct opt train_amounts_table[];
extern const size_t train_amounts_count;

// A resumed run may change this option (n bytes of its long name) without changing what is learned.
bool train_option_is_free(const char *name, size_t n);
bool train_option_given(const char *name); // the long one
// The line `name = value` of an option text, without its newline; n 0 when absent.
struct span train_options_line(const struct text *options, const char *name);
// Options and amounts as text for a checkpoint, and back: options given now are kept, all others are taken from the text.
void train_options_write(struct text *to);
MUST_USE bool train_options_read(const struct text *from, const char *where, struct err *err);

#endif
