// train_loop.c: learning: steps, evaluations, checkpoints, until the run is complete.
//
// Everything that decides a step (learning rate, data, batch) is a function of the number of tokens done and of a few
// numbers that checkpoints carry, so the same command started again continues bit for bit. Invariants:
//   (1) a step is done whole or not at all: a signal between micro-batches throws the partial sum away;
//   (2) rows of the log never run ahead of what a resume will produce again: they are dropped and made anew;
//   (3) after the first step nothing is allocated but in evaluation, saving and sampling (test builds abort otherwise).
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Into the log and what goes with it; into nothing while aside.
void note_row(struct run *r, const struct log_row *of) {
    struct log_row row = *of;
    row.rollback = r->state.rollbacks;
    if (r->log) log_add(r->log, &row);
    if (r->log && r->board) board_add(r->board, &row);
}

// Mean loss over windows spread evenly through held-out tokens. exit_loss (may be NULL): that of the exit, 0 without one.
static double evaluate(struct run *r, const struct tokens *valid, int64_t tokens, double *exit_loss) {
    int64_t windows = loader_windows(valid, opts.seq), wanted = tokens / opts.seq, T = opts.seq, scored = 0;
    if (wanted < 1) wanted = 1;
    if (wanted > windows) wanted = windows;
    double sum = 0;
    bool swapped = optimizer_swap(r->optimizer);
    train_exit_loss(r->acts); // of what was before
    for (int64_t w = 0; w < wanted && !stop_wanted;) {
        int64_t n = wanted - w < r->micro_seq ? wanted - w : r->micro_seq;
        for (int64_t i = 0; i < n; i++)
            loader_window(valid, T, (w + i) * windows / wanted, (int32_t)(i * T), r->ids + i * T, r->targets + i * T,
                          r->doc_start + i * T);
        train_loss(r->acts, &(struct train_batch){n * T, T, r->ids, r->targets, r->doc_start}, 0, r->losses);
        for (int64_t i = 0; i < n * T; i++) sum += r->losses[i], scored += r->targets[i] >= 0;
        w += n;
    }
    if (swapped) optimizer_swap(r->optimizer);
    const double at_exit = train_exit_loss(r->acts);
    if (exit_loss) *exit_loss = at_exit / (double)(scored ? scored : 1);
    return scored ? sum / (double)scored : NAN;
}

// A text of the model as it is now, in the evaluation's row.
static void sample_now(struct run *r, struct text *to) {
    struct err err;
    bool swapped = optimizer_swap(r->optimizer);
    struct session *s = session_new(r->model, &(struct session_options){.ctx = opts.seq}, &err);
    if (s) run_sample(r, s, opts.seed, opts.eval_sample, false, to);
    else progress_note(&r->progress, "warning: no sample: %s", err.text);
    session_free(s);
    if (swapped) optimizer_swap(r->optimizer);
}

static void take_score(struct run *r, int64_t tokens, struct log_row *row) {
    bool swapped = optimizer_swap(r->optimizer);
    r->score = draft_score(r, tokens);
    if (swapped) optimizer_swap(r->optimizer);
    row->acceptance = r->score.acceptance, row->agreement = r->score.agreement;
}

// Adds an evaluation to the log and tells it; returns nats per byte.
double log_evaluation(struct run *r, int64_t tokens) {
    if (loader_windows(&r->valid, opts.seq) < 1) return NAN;
    double exit_loss, loss = evaluate(r, &r->valid, tokens, &exit_loss), per_byte = r->draft ? NAN : loss * (double)r->valid.count / r->valid.bytes; // only some are scored
    double old = r->replay_valid.count ? evaluate(r, &r->replay_valid, tokens, NULL) : NAN;
    if (stop_wanted) return NAN;
    struct log_row row = log_row_at(r->state.step, r->state.tokens);
    row.val_loss = loss, row.val_nats_per_byte = per_byte, row.val_loss_replay = old, row.exit_loss = exit_loss;
    if (r->draft) take_score(r, tokens, &row);
    if (train_imbalance(r->model) > 0)
        row.use = r->model->expert_use, row.layers = r->model->config.L, row.experts = r->model->config.E;
    // A run that was killed after this evaluation has it in its log already.
    struct text sample = {0};
    if (opts.eval_sample && r->evaluated_at != r->state.tokens) sample_now(r, &sample);
    row.sample = sample.data;
    if (r->evaluated_at != r->state.tokens) note_row(r, &row);
    text_free(&sample);
    r->evaluated_at = r->state.tokens;
    r->last_eval = r->state.seconds;
    char count[32], beside[80] = "";
    text_count(count, (double)r->state.tokens);
    if (isfinite(old)) snprintf(beside, sizeof beside, "; of the old text %.4f", old);
    if (exit_loss > 0) snprintf(beside + strlen(beside), sizeof beside - strlen(beside), "; at the exit %.4f", exit_loss);
    if (r->draft)
        progress_note(&r->progress, "%s tokens: validation loss %.4f, %.2f%% accepted at temperature 1, %.2f%% when greedy", count, loss,
                      100 * row.acceptance, 100 * row.agreement);
    else if (isfinite(r->floor))
        progress_note(&r->progress, "%s tokens: validation loss %.4f, %.4f nats per byte, %+.1f%% of the best possible %.4f%s",
                      count, loss, per_byte, 100 * (per_byte / r->floor - 1), r->floor, beside);
    else progress_note(&r->progress, "%s tokens: validation loss %.4f, %.4f nats per byte%s", count, loss, per_byte, beside);
    return per_byte;
}

// By the number of the sequence in the run, so that no cut of a batch shows, and what is read once more has the same holes.
struct dropout dropout_of_run(const struct run *r, int64_t s) {
    return (struct dropout){.seed = r->state.seed, .row = s * opts.seq, .below = (uint32_t)(opts.dropout * 65536 + 0.5)};
}

// Adds one micro-batch to the gradient: n sequences of the run from number s on.
static void add_micro_batch(struct run *r, int64_t s, int64_t n, double batch, double *sum, int64_t *scored) {
    int64_t T = opts.seq;
    for (int64_t i = 0; i < n; i++)
        mixture_sequence(&r->mixture, T, r->state.seed, s + i, (int32_t)(i * T), r->ids + i * T, r->targets + i * T, r->doc_start + i * T);
    train_drop(r->acts, dropout_of_run(r, s));
    train_loss(r->acts, &(struct train_batch){n * T, T, r->ids, r->targets, r->doc_start}, 1 / (float)batch, r->losses);
    // Row by row, so that the split into micro-batches does not show in the last bits.
    for (int64_t i = 0; i < n * T; i++) *sum += r->losses[i], *scored += r->targets[i] >= 0;
}

// Tokens of this step, never beyond the run's end; its rate is that of the whole batch.
static int64_t step_batch(struct run *r, double *lr) {
    struct batch_rule *rule = &r->state.batch;
    int64_t batch = batch_next(rule, (double)r->state.tokens), left = amount.tokens - r->state.tokens;
    r->schedule.batch = (double)batch;
    *lr = schedule_lr(&r->schedule, (double)r->state.tokens) *
          r->batch_lr->factor((double)batch, (double)amount.batch_tokens, noise_scale(&rule->noise));
    return amount.tokens && left < batch ? left : batch;
}

enum { LAYERS_EVERY = 10 }; // steps: norms by layer in the log

// One step. False when a signal came between micro-batches: the partial gradient is dropped.
static bool step(struct run *r) {
    int64_t scored = 0;
    double start = time_now(), sum = 0, lr, small = 0;
    struct batch_rule before = r->state.batch;
    int64_t batch = step_batch(r, &lr), first = r->state.tokens / opts.seq + r->state.passed, n_seq = batch / opts.seq;
    int64_t probe = n_seq < 2 ? 0 : (n_seq + 7) / 8; // the same cut for any micro-batch: the noise is part of the run
    r->backend->begin(0);
    train_zero_grads(r->acts);
    for (int64_t s = 0, n; s < n_seq; s += n) {
        int64_t stop = s < probe ? probe : n_seq;
        n = stop - s < r->micro_seq ? stop - s : r->micro_seq;
        add_micro_batch(r, first + s, n, (double)batch, &sum, &scored);
        if (stop_wanted) {
            r->state.batch = before;
            return false;
        }
        if (s + n != probe) continue;
        train_close_grads(r->acts);
        small = optimizer_grad_norm(r->optimizer) * (double)n_seq / (double)probe;
    }
    train_close_grads(r->acts);
    double aux = train_close_use(r->acts);
    double loss = sum / (double)(scored ? scored : 1), norm = optimizer_grad_norm(r->optimizer);
    r->state.guard.goes_back = opts.rollback && r->log && r->state.good >= 0;
    enum guard_verdict verdict = guard_judge(&r->state.guard, loss, norm);
    r->state.step++;
    if (verdict == GUARD_KEEP && probe)
        noise_add(&r->state.batch.noise, (double)(probe * opts.seq), small * small, (double)batch, norm * norm);
    if (verdict == GUARD_KEEP) optimizer_step(r->optimizer, lr, norm, r->state.steps_before + r->state.step - r->state.guard.skipped);
    r->backend->end();
    r->state.tokens += batch;
    double seconds = time_now() - start;
    r->state.seconds += seconds;
    struct log_row row = log_row_at(r->state.step, r->state.tokens);
    row.loss = loss, row.lr = lr, row.grad_norm = norm, row.dt_ms = seconds * 1e3, row.tok_per_s = (double)batch / seconds;
    row.batch = (double)batch, row.noise = noise_scale(&r->state.batch.noise), row.skipped = verdict == GUARD_KEEP ? NULL : guard_name(verdict);
    if (r->state.step % LAYERS_EVERY == 0 || r->state.step == 1) {
        optimizer_layer_norms(r->optimizer, r->layer_norms);
        row.layer_norms = (struct log_list){r->layer_norms, r->model->config.L + 2};
    }
    if (r->peak > 0) row.peak_share = row.tok_per_s * config_flops_per_token(&r->model->config, opts.seq) / r->peak;
    row.aux_loss = aux, row.imbalance = train_imbalance(r->model), row.exit_loss = train_exit_loss(r->acts) / (double)(scored ? scored : 1);
    note_row(r, &row);
    r->not_finite = verdict == GUARD_NOT_FINITE && r->state.guard.in_a_row == 1;
    if (verdict != GUARD_KEEP)
        progress_note(&r->progress, "step %lld skipped: %s (loss %g, gradient norm %g)", (long long)r->state.step,
                      guard_name(verdict), loss, norm);
    if (verdict == GUARD_NOT_FINITE && r->state.guard.in_a_row >= 20)
        refuse(1, "the loss was not finite 20 steps in a row; the checkpoints in %s are from before: lower --lr", opts.out);
    double eta = amount.tokens ? (double)(amount.tokens - r->state.tokens) / (double)batch * seconds
                          : opts.time - r->state.seconds;
    char done[32], speed[32], left[32];
    progress_line(&r->progress, r->state.step == 1, "step %lld | %s tokens | loss %.4f | lr %.2e | norm %.3f | %s tok/s | eta %s",
                  (long long)r->state.step, text_count(done, (double)r->state.tokens), loss, lr, norm,
                  text_count(speed, (double)batch / seconds), text_time(left, eta > 0 ? eta : 0));
    return true;
}

// With --time: once the trunk has used its share of the clock, the rest of the time at the pace so far becomes the decay. From then
// on the run has an end in tokens, kept in checkpoints like any other option.
static void place_decay(struct run *r) {
    if (amount.tokens || r->state.seconds < opts.time * (1 - amount.decay)) return;
    double pace = (double)r->state.tokens / r->state.seconds;
    int64_t steps = (int64_t)(pace * (opts.time - r->state.seconds) / (double)amount.batch_tokens + 0.5);
    amount.decay_tokens = (steps < 1 ? 1 : steps) * amount.batch_tokens;
    amount.tokens = r->state.tokens + amount.decay_tokens;
    make_schedule(r);
    progress_note(&r->progress, "decay begins: %lld tokens to go, %lld in all", (long long)amount.decay_tokens, (long long)amount.tokens);
}

static bool decay_begins(const struct run *r) {
    const struct schedule *s = &r->schedule;
    if (!s->kind->curve || s->decay <= 0) return false;
    double at = s->total - s->decay, now = (double)r->state.tokens;
    return now >= at && now < at + s->batch && r->state.tokens > r->resumed_at;
}

bool finished(const struct run *r) { return amount.tokens && r->state.tokens >= amount.tokens; }

// By --eval-every, else ten times in a run; the last one is finish()'s.
static bool evaluation_due(const struct run *r) {
    if (finished(r) || r->state.step == 0) return false;
    if (opts.eval_every) return r->state.step % opts.eval_every == 0;
    if (opts.time > 0 && !opts.tokens && !opts.steps) return r->state.seconds - r->last_eval > opts.time / 10;
    return r->state.step % (int64_t)fmax(1, ceil((double)amount.tokens / (double)amount.batch_tokens / 10)) == 0;
}

// ---- cool-downs aside ---------------------------------------------------------------------------------------------

// The tokens of a cool-down from n on that makes up `share` of all it has seen then, in whole batches.
static int64_t cool_length(double n, double share) { return whole_batches(n * share / (1 - share)); }

// Cools a copy of the run down over `tokens`, logs what it is worth then, and goes on as if nothing had been: the state is
// kept in a checkpoint of its own and read back, which changes no bit. Where `model` is not NULL its model goes there, and
// it is judged as a run is at its end.
static void cool_aside(struct run *r, int64_t tokens, const char *model) {
    struct err err;
    struct text path = {0};
    char *folder = in_out("aside");
    const struct train_amounts kept = amount;
    struct log_file *log = r->log;
    const int64_t from = r->state.tokens, step_from = r->state.step;
    keep_options(r);
    text_fmt(&path, "%s/ckpt-%lld.gguf", folder, (long long)from);
    if (!checkpoint_save(folder, r->model, r->tokenizer, r->optimizer, &r->state, 1, &err)) {
        progress_note(&r->progress, "warning: no cool-down aside: %s", err.text);
        mem_free(folder);
        text_free(&path);
        return;
    }
    r->log = NULL;
    amount.tokens = from + tokens, amount.decay_tokens = tokens;
    make_schedule(r);
    while (!finished(r) && step(r)) continue;
    double loss = finished(r) ? evaluate(r, &r->valid, (model ? 16 : 4) * opts.eval_tokens, NULL) : NAN, seconds = r->state.seconds;
    int64_t end = r->state.tokens;
    if (finished(r) && model && !stop_wanted) {
        optimizer_swap(r->optimizer);
        if (!checkpoint_export(model, r->model, r->tokenizer, dtype_from_name(opts.export_dtype), &r->notes, &err))
            progress_note(&r->progress, "warning: %s", err.text);
        optimizer_swap(r->optimizer);
        text_clear(&r->notes);
    }
    amount = kept, r->log = log;
    if (!read_back(r, path.data, &err)) fail(1, &err);
    r->state.seconds = seconds;
    unlink(path.data);
    rmdir(folder);
    if (isfinite(loss)) {
        struct log_row row = log_row_at(step_from, from);
        row.cooled_tokens = end, row.cooled_loss = loss, row.cooled_nats_per_byte = loss * (double)r->valid.count / r->valid.bytes;
        char count[32];
        note_row(r, &row);
        progress_note(&r->progress, "cooled down aside to %s tokens: validation loss %.4f", text_count(count, (double)end), loss);
    }
    mem_free(folder);
    text_free(&path);
}

// Rungs of --ladder: the run that ends with a share of all tokens leaves the trunk where its own decay begins.
static void climb(struct run *r, int64_t before) {
    for (size_t i = 0; i < opts.ladder.count && amount.tokens; i++) {
        double share, own;
        rung_read(opts.ladder.word[i], &share, &own);
        int64_t all = whole_batches(share * (double)amount.tokens), decay = whole_batches(own * (double)all), leave = all - decay;
        if (leave <= before || leave > r->state.tokens || r->state.tokens <= r->cooled_at) continue;
        struct text name = {0};
        text_fmt(&name, "model-%lld.gguf", (long long)(r->state.tokens + decay));
        char *path = in_out(name.data);
        cool_aside(r, decay, path);
        mem_free(path);
        text_free(&name);
    }
}

// Whether the step from `before` crossed a multiple of --probe-decay.
static bool probe_due(const struct run *r, int64_t before) {
    double every = opts.probe_decay < 1 ? opts.probe_decay * (double)amount.tokens : opts.probe_decay;
    if (!(every > 0) || finished(r) || r->state.tokens <= r->cooled_at) return false;
    if (amount.tokens && r->state.tokens > amount.tokens - amount.decay_tokens) return false; // cooling down already
    return floor((double)before / every) < floor((double)r->state.tokens / every);
}

static void cool_downs(struct run *r, int64_t before) {
    if (probe_due(r, before)) cool_aside(r, cool_length((double)r->state.tokens, opts.probe_share), NULL);
    climb(r, before);
}

double loop_aside(struct run *r) {
    enum { PATIENCE = 10 }; // steps in a row that were not finite: below those that end the program, above the guard's
    static_assert(PATIENCE > GUARD_PATIENCE, "outliers end before");
    while (!finished(r) && r->state.guard.in_a_row < PATIENCE && step(r)) continue;
    if (stop_wanted) return NAN;
    if (r->state.guard.in_a_row && !isfinite(optimizer_grad_norm(r->optimizer))) return INFINITY; // nothing moves it any more
    double loss = evaluate(r, &r->valid, 4 * opts.eval_tokens, NULL);
    if (stop_wanted) return NAN;
    const double uniform = log((double)r->model->config.V); // whoever is dead says any token with the same probability
    return loss < uniform - 1e-3 ? loss : INFINITY;
}

// ---- all of it ----------------------------------------------------------------------------------------------------

static void keep_trunk(struct run *r) { // for ever: from here any other decay can start
    char *folder = in_out("trunk");
    save(r, folder, 1000);
    mem_free(folder);
}

static void print_profile(void) {
    struct text table = {0};
    backend_profile(&table);
    fputs(table.data, stderr);
    text_free(&table);
}

// What the processor can do, for the log: once, when the run has lasted long enough that nobody misses the half second.
static void measure_peak(struct run *r) {
    enum { LONG_ENOUGH_S = 60 };
    struct ceiling found[CEILINGS_MOST];
    if (r->peak != 0 || opts.peak < 0 || (opts.peak == 0 && r->state.seconds < LONG_ENOUGH_S)) return;
    r->peak = opts.peak > 0 ? opts.peak : NAN;
    if (opts.peak > 0) return;
    bool bf16 = dtype_from_name(opts.dtype) == DTYPE_BF16;
    const char *unit = r->backend->unit(bf16 ? DTYPE_BF16 : DTYPE_F32, bf16 ? PRECISION_BF16 : PRECISION_F32);
    int n = r->backend->ceilings(found, 0.5, NULL);
    for (int i = 0; i < n; i++)
        if (strcmp(found[i].name, unit) == 0) r->peak = found[i].per_second;
    if (r->peak > 0) progress_note(&r->progress, "peak: %s, %.3g operations a second; peak_share in the log is of these", unit, r->peak);
}

void loop(struct run *r) {
    bool guarded = false;
    // The checkpoint was written before its evaluation and cool-downs; when the run was killed in between, they are made now.
    if (r->resumed_at && r->evaluated_at < r->state.tokens && evaluation_due(r)) log_evaluation(r, opts.eval_tokens);
    if (*opts.from && r->state.tokens == 0) log_evaluation(r, opts.eval_tokens); // what it was before
    if (r->resumed_at) cool_downs(r, r->state.tokens - r->state.batch.now);
    while (!finished(r) && !stop_wanted) {
        int64_t before = r->state.tokens, passed = r->state.passed;
        if (opts.profile && guarded) backend_profile_run(true);
        if (!step(r)) break;
        if (opts.profile) backend_profile_run(false);
        if (!guarded) mem_freeze(true), guarded = true;
        mem_freeze(false);
        saved(r, false);
        measure_peak(r);
        if (r->not_finite) find_not_finite(r, before / opts.seq + passed, r->state.tokens / opts.seq + passed);
        const char *why = r->state.guard.goes_back ? guard_lost(&r->state.guard) : NULL;
        if (why) {
            go_back(r, why);
            mem_freeze(true);
            continue;
        }
        keep_good(r);
        place_decay(r);
        if (decay_begins(r)) keep_trunk(r);
        bool by_steps = opts.save_every && r->state.step % opts.save_every == 0;
        bool eval_due = evaluation_due(r);
        double since_save = time_now() - r->last_save;
        if (by_steps || since_save > opts.save_seconds || (eval_due && since_save > 30)) save(r, opts.out, (int)opts.keep);
        if (eval_due) log_evaluation(r, opts.eval_tokens);
        cool_downs(r, before);
        mem_freeze(true);
    }
    if (guarded) mem_freeze(false);
    progress_close(&r->progress);
    if (opts.profile) print_profile();
}
