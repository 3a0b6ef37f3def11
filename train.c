// train.c: text in, a language model out.
//
// The story: options -> data and tokenizer -> model, optimizer, schedule -> the loop -> model.gguf, log, report, samples.
// Everything that decides a step (learning rate, data, batch) is a function of the number of tokens done, so a checkpoint needs no
// scheduler or loader state, and the same command started again continues bit for bit.
//
// Invariants of the loop:
//   (1) a step is done whole or not at all: a signal between micro-batches throws the partial sum away;
//   (2) rows of the log never run ahead of what a resume will produce again: they are dropped and made anew;
//   (3) after the first step nothing is allocated but in evaluation, saving and sampling (test builds abort otherwise).
#include "gen/gen.h"
#include "learn/learn.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/stories.h"
#include "train_options.h"

static volatile sig_atomic_t stop_wanted;

static void on_stop(int signal_number) {
    (void)signal_number;
    if (stop_wanted) _exit(130);
    stop_wanted = 1;
}

static _Noreturn void fail(int code, const struct err *err) {
    fprintf(stderr, "train: %s\n", err->text);
    exit(code);
}

static _Noreturn void refuse(int code, const char *format, ...) PRINTF_LIKE(2, 3);
static _Noreturn void refuse(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("train: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

// ---- small modes --------------------------------------------------------------------------------------------------

static void print_list(void) {
    puts("families (--family)");
    for (int i = 0; i < family_count; i++)
        if (families[i].trains) printf("  %-12s %s\n", families[i].name, families[i].help);
    puts("schedules (--schedule)");
    for (int i = 0; i < schedule_count; i++)
        printf("  %-12s %s [%s]\n", schedules[i].name, schedules[i].help, schedules[i].source);
    puts("decay shapes (--decay-shape)");
    for (int i = 0; i < decay_count; i++) printf("  %-12s %s\n", decays[i].name, decays[i].help);
    puts("dtypes (--export-dtype)");
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (dtype_row((enum dtype)i)->from_f32) printf("  %s\n", dtype_row((enum dtype)i)->name);
}

// Loss and validation loss of a log as one terminal plot.
static void draw_log(const struct log_rows *rows, FILE *to) {
    size_t n[2] = {0};
    double *x[2], *y[2];
    for (int k = 0; k < 2; k++) {
        x[k] = mem_array(rows->count + 1, sizeof **x, "plot");
        y[k] = mem_array(rows->count + 1, sizeof **y, "plot");
    }
    for (size_t i = 0; i < rows->count; i++) {
        const double value[2] = {rows->row[i].loss, rows->row[i].val_loss}; // a row has one or the other
        for (int k = 0; k < 2; k++) {
            if (!isfinite(value[k])) continue;
            x[k][n[k]] = (double)rows->row[i].tokens;
            y[k][n[k]++] = value[k];
        }
    }
    struct series series[2] = {{"training loss", x[0], y[0], n[0], LOOK_LINE}, {"validation", x[1], y[1], n[1], LOOK_POINTS}};
    struct plot plot = {"loss in nats per token", "tokens", "", series, n[1] ? 2u : 1u, false};
    int width = term_width();
    plot_terminal(&plot, width > 100 ? 100 : width, 16, to);
    for (int k = 0; k < 2; k++) {
        mem_free(x[k]);
        mem_free(y[k]);
    }
}

// ---- one training run ---------------------------------------------------------------------------------------------

struct run {
    const struct backend *backend;
    struct tokenizer *tokenizer;
    struct tokens train, valid;
    struct model *model;
    struct optimizer *optimizer;
    struct train_state *acts;
    struct schedule schedule;
    struct run_state state;
    struct log_file *log;
    struct progress progress;
    struct text notes;
    int64_t n_seq, micro_seq;             // sequences of a step, of a micro-batch
    int32_t *ids, *targets, *doc_start;   // one micro-batch
    float *losses;
    double last_save, last_eval, floor; // time_now, seconds of training, nats per byte
    int64_t resumed_at;   // tokens
    int64_t evaluated_at; // tokens of the last evaluation in the log, -1 when there is none
};

static void print_notes(struct text *notes) {
    if (notes->len) fputs(notes->data, stderr);
    text_clear(notes);
}

// The text to learn from; with none given, the stories this project writes itself.
static void read_corpus(struct corpus *c, const struct opt_words *paths) {
    struct err err;
    if (!corpus_read(c, paths->word, paths->count, &err)) fail(1, &err);
    print_notes(&c->notes);
}

// Written anew each time: the same seed and size give the same bytes, so a resumed run finds its data again.
static void make_stories(struct run *r) {
    struct text path = {0};
    text_fmt(&path, "%s/stories.txt", opts.out);
    if (!stories_write_file(path.data, 1, (size_t)opts.story_bytes, &r->floor))
        refuse(1, "%s: the stories could not be written; is the disk full?", path.data);
    fprintf(stderr, "data: no text was named, so stories of our own were written to %s; a perfect model would score %.4f nats per byte\n",
            path.data, r->floor);
    opts.floor = r->floor; // a resumed run reads the file and still knows it
    mem_grow((void **)&opts.data.word, &opts.data.cap, 1, sizeof *opts.data.word, "data path");
    opts.data.word[opts.data.count++] = mem_text(path.data);
    text_free(&path);
}

static struct tokenizer *make_tokenizer(const struct corpus *c) {
    struct err err;
    int64_t vocab = 0;
    if (strncmp(opts.tokenizer, "bpe:", 4) != 0) {
        struct tokenizer *t = tokenizer_open(opts.tokenizer, -1, &err);
        if (!t) fail(1, &err);
        return t;
    }
    char *end;
    vocab = strtoll(opts.tokenizer + 4, &end, 10);
    if (*end || vocab < 257 || vocab > 1 << 20)
        refuse(2, "--tokenizer %s: expected bpe:N with N from 257 to 1048576", opts.tokenizer);
    if (!c->n_docs) refuse(2, "token shards need the tokenizer they were made with: give it by --tokenizer FILE");
    struct span *docs = mem_array(c->n_docs, sizeof *docs, "list of documents");
    for (size_t i = 0; i < c->n_docs; i++) {
        size_t from = i ? c->doc_end[i - 1] : 0;
        docs[i] = (struct span){c->bytes.data + from, c->doc_end[i] - from};
    }
    double start = time_now();
    size_t most = opts.tokenizer_bytes ? (size_t)opts.tokenizer_bytes : (size_t)64 << 20;
    struct tokenizer *t = tokenizer_train(docs, c->n_docs, vocab, most, &err);
    if (!t) fail(1, &err);
    mem_free(docs);
    fprintf(stderr, "tokenizer: byte-level BPE of %lld tokens trained in %.1f s\n", (long long)tokenizer_vocab(t),
            time_now() - start);
    return t;
}

static void print_tokens(const char *name, const struct tokens *t) {
    char count[32], bytes[32];
    fprintf(stderr, "%s: %s tokens, %s, %.3f bytes per token, %lld documents, hash %016llx\n", name,
            text_count(count, (double)t->count), text_bytes(bytes, t->bytes), t->count ? t->bytes / (double)t->count : 0,
            (long long)t->documents, (unsigned long long)t->hash);
}

static void make_data(struct run *r, const struct model_file *from) {
    struct err err;
    struct corpus corpus = {0}, held_out = {0};
    read_corpus(&corpus, &opts.data);
    r->tokenizer = from ? tokenizer_from_file(from, &err) : make_tokenizer(&corpus);
    if (!r->tokenizer) fail(1, &err);
    uint64_t hash = tokenizer_hash(r->tokenizer);
    if (corpus.shards.count) {
        if (corpus.n_docs || corpus.shards.count > 1)
            refuse(2, "give one .tok file, or text, not both: %s", corpus.shards.word[0]);
        if (!tokens_open(&r->train, corpus.shards.word[0], hash, tokenizer_vocab(r->tokenizer), &err)) fail(1, &err);
    } else {
        double share = opts.valid.count ? 0 : opts.valid_share;
        if (!tokens_make(&corpus, r->tokenizer, share, &r->train, &r->valid, &err)) fail(1, &err);
    }
    if (opts.valid.count) {
        read_corpus(&held_out, &opts.valid);
        struct tokens none = {0};
        bool fine = held_out.shards.count
                        ? tokens_open(&r->valid, held_out.shards.word[0], hash, tokenizer_vocab(r->tokenizer), &err)
                        : tokens_make(&held_out, r->tokenizer, 0, &r->valid, &none, &err);
        if (!fine) fail(1, &err);
    }
    corpus_free(&corpus);
    corpus_free(&held_out);
    if (!opts.doc_mask) r->train.start = r->valid.start = -1;
    print_tokens("training", &r->train);
    print_tokens("validation", &r->valid);
    if (r->train.count < opts.seq + 1)
        refuse(1, "the training text has %lld tokens, but one sequence needs %lld: add text or lower --seq",
               (long long)r->train.count, (long long)opts.seq + 1);
}

static struct model_config make_config(const struct run *r) {
    struct err err;
    struct model_config c;
    if (!config_from_size(&c, family_find(opts.family), opts.size, tokenizer_vocab(r->tokenizer), opts.seq, &err)) fail(2, &err);
    if (opts.width) c.C = opts.width;
    if (opts.layers) c.L = opts.layers;
    if (opts.heads) c.H = opts.heads;
    if (opts.heads || opts.kv_heads) c.G = opts.kv_heads ? opts.kv_heads : opts.heads;
    if (opts.head_size || opts.width || opts.heads) c.D = opts.head_size ? opts.head_size : c.C / c.H;
    if (opts.ffn) c.F = opts.ffn;
    else if (opts.width) c.F = (c.C * 8 / 3 + 31) / 32 * 32;
    c.tied = opts.tied;
    c.init_std = (float)opts.init_std;
    config_derive(&c);
    if (opts.embedding_scale > 0) c.m_emb = (float)opts.embedding_scale;
    if (opts.attention_scale > 0) c.m_attn = (float)opts.attention_scale;
    if (opts.residual_scale > 0) c.m_res = (float)opts.residual_scale;
    if (!c.family->multipliers && (opts.embedding_scale > 0 || opts.attention_scale > 0 || opts.residual_scale > 0))
        refuse(2, "--embedding-scale, --attention-scale and --residual-scale need a family with multipliers; %s has none", c.family->name);
    if (!config_check(&c, &err)) fail(2, &err);
    return c;
}

// Step Law (Li et al. 2025): batch in tokens for D tokens of training, in whole sequences. Its data begin at 4G tokens; for
// small runs half of it does better (stories at 0.6M and 1.5M tokens: 1024 beats 2048).
static int64_t step_law_batch(double D, int64_t T) {
    double batch = 0.58 * pow(D, 0.571) * (D < 1e8 ? 0.5 : 1);
    int64_t sequences = (int64_t)(batch / (double)T + 0.5), least = (1024 + T - 1) / T;
    return (sequences < least ? least : sequences) * T;
}

// The power law was fitted for batches of 64k to 2M tokens, where its rate grows with the batch. Below that a rate
// proportional to the batch comes out too small for stories, and Adam's square-root rule (methods A.4) too large for
// Tiny Shakespeare (768 tokens a batch: 1.700, against 1.666 this way); the amplitude goes half way between the two.
enum { POWER_LEAST_BATCH = 1 << 16 };

static double default_power_a(double batch) {
    return batch >= POWER_LEAST_BATCH ? 4 : 4 * pow(POWER_LEAST_BATCH / batch, 0.25);
}

// Peak learning rate when none is given. Granite: base rates of muP, the paper's cap for power where its law was
// fitted, else .01 (MiniCPM; also best here for a million parameters, .005 and .02 are worse). Llama has no muP, so
// Step Law by size and tokens, kept inside what small models stand.
static double default_lr(const struct model_config *c, double D) {
    bool power = strcmp(opts.schedule, "power") == 0;
    if (c->mup) return power && amount.batch_tokens >= POWER_LEAST_BATCH ? 0.02 : 0.01;
    double lr = 1.79 * pow((double)(config_params(c) - c->V * c->C), -0.713) * pow(D, 0.307);
    return lr < 1e-4 ? 1e-4 : lr > 4e-3 ? 4e-3 : lr;
}

static int64_t micro_sequences(int64_t batch_tokens) {
    int64_t n = opts.micro_batch ? opts.micro_batch : opts.seq >= 4096 ? 1 : 4096 / opts.seq, all = batch_tokens / opts.seq;
    return n > all && all > 0 ? all : n;
}

static double measured_tokens_per_s(const struct run *r, const struct model_config *c, struct plan *plan) {
    struct err err;
    int64_t batch = amount.batch_tokens ? amount.batch_tokens : 8 * opts.seq, micro = micro_sequences(batch) * opts.seq;
    size_t data_bytes = (size_t)(r->train.count + r->valid.count) * (r->train.t16 ? 2 : 4);
    if (!plan_make(plan, c, r->backend, dtype_from_name(opts.dtype), micro, opts.seq, batch, amount.tokens, data_bytes, &err)) fail(1, &err);
    return plan->tokens_per_s;
}

static int64_t whole_batches(double tokens) {
    double steps = ceil(tokens / (double)amount.batch_tokens);
    return (int64_t)(steps < 1 ? 1 : steps) * amount.batch_tokens;
}

// A tenth is enough for long runs (MiniCPM); short ones gain from more: at 1.5M tokens 0.6 beats 0.4 beats 0.2 here.
static double default_decay(double D) { return D >= 1e9 ? 0.1 : D >= 1e7 ? 0.2 : 0.5; }

// How much in all: from --tokens, --steps or the clock. 0: the clock decides later.
static void resolve_tokens(double expected) {
    bool phase = schedule_find(opts.schedule)->decays;
    amount.tokens = opts.steps ? opts.steps * amount.batch_tokens : opts.tokens ? whole_batches((double)opts.tokens) : 0;
    // A schedule that needs its horizon gets the expected one; power and wsd place their decay by the clock.
    if (!amount.tokens && !phase) amount.tokens = whole_batches(expected);
    amount.decay = opts.decay >= 0 ? opts.decay : default_decay(expected);
    if (amount.tokens && phase) amount.decay_tokens = (int64_t)(amount.decay * (double)amount.tokens);
}

// Turns what the user said, or left open, into numbers: from here on nothing is "auto".
static void resolve_amounts(struct run *r, const struct model_config *c) {
    if (opts.steps && opts.tokens) refuse(2, "--steps and --tokens both say how much; give one");
    if (!opts.steps && !opts.tokens && opts.time <= 0) opts.time = 120;
    double expected = (double)opts.tokens;
    if (!opts.tokens && !opts.steps) {
        struct plan plan;
        expected = opts.time * measured_tokens_per_s(r, c, &plan);
    }
    amount.batch_tokens = opts.batch_tokens ? opts.batch_tokens : step_law_batch(opts.steps ? 2e6 : expected, opts.seq);
    if (amount.batch_tokens % opts.seq)
        refuse(2, "--batch-tokens %lld is no multiple of --seq %lld", (long long)amount.batch_tokens, (long long)opts.seq);
    if (opts.steps) expected = (double)(opts.steps * amount.batch_tokens);
    resolve_tokens(expected);
    if (amount.tokens) expected = (double)amount.tokens;
    double batch = (double)amount.batch_tokens;
    amount.lr = opts.lr > 0 ? opts.lr : default_lr(c, expected);
    amount.power_a = opts.power_a > 0 ? opts.power_a : default_power_a(batch);
    amount.warmup = opts.warmup < 0    ? 0
                    : opts.warmup == 0 ? fmax(0.02 * expected, fmin(50 * batch, 0.1 * expected))
                    : opts.warmup < 1  ? opts.warmup * expected
                                    : opts.warmup;
    amount.warmup = ceil(amount.warmup / batch) * batch;
}

static void make_schedule(struct run *r) {
    r->schedule = (struct schedule){
        .kind = schedule_find(opts.schedule), .lr = amount.lr, .total = amount.tokens ? (double)amount.tokens : INFINITY,
        .warmup = amount.warmup, .decay = (double)amount.decay_tokens, .shape = decay_find(opts.decay_shape), .final = opts.final,
        .power_a = amount.power_a, .power_b = opts.power_b, .batch = (double)amount.batch_tokens,
    };
}

static void keep_options(struct run *r) {
    text_clear(&r->state.options);
    train_options_write(&r->state.options);
}

// ---- resuming -----------------------------------------------------------------------------------------------------

// The line `name = value` of an option text, without its newline; n 0 when absent.
static struct span option_line(const struct text *options, const char *name, size_t n) {
    for (const char *p = options->data; p && *p;) {
        const char *end = strchr(p, '\n');
        size_t length = end ? (size_t)(end - p) : strlen(p);
        if (length > n && memcmp(p, name, n) == 0 && p[n] == ' ') return (struct span){p, length};
        p += length + (end != NULL);
    }
    return (struct span){0};
}

// Options not given now come from the checkpoint; given ones that differ are refused, with both values.
static void adopt_options(const struct run_state *saved, const char *path) {
    struct err err;
    struct text now = {0};
    opt_write(train_table, train_table_count, &now);
    for (size_t i = 0; i < train_table_count; i++) {
        const char *name = strstr(train_table[i].names, "--") + 2;
        size_t n = strcspn(name, " ");
        if (!train_table[i].given || train_option_is_free(name, n) || opts.override) continue;
        struct span ours = option_line(&now, name, n), theirs = option_line(&saved->options, name, n);
        if (!theirs.n || (ours.n == theirs.n && memcmp(ours.p, theirs.p, ours.n) == 0)) continue;
        refuse(2, "%s was started with `%.*s`, now `%.*s` is asked for; leave it out, use another --out, or force it with --override",
               path, (int)theirs.n, theirs.p, (int)ours.n, ours.p);
    }
    text_free(&now);
    if (!train_options_read(&saved->options, path, &err)) fail(1, &err);
    if (opts.override && (opts.tokens || opts.steps)) resolve_tokens((double)amount.tokens);
}

// The checkpoint to go on from: --decay-from, or the newest whole one in --out. NULL to start afresh.
static struct model_file *find_checkpoint(struct run *r) {
    struct err err = {""};
    char *path = NULL;
    if (opts.decay_from) {
        path = mem_text(opts.decay_from);
    } else if (!opts.resume || !file_exists(opts.out) || !checkpoint_newest(opts.out, &path, &r->notes, &err)) {
        if (err.text[0]) fail(1, &err);
        print_notes(&r->notes);
        return NULL;
    }
    print_notes(&r->notes);
    struct model_file *f = model_file_open(path, &err);
    if (!f || !model_file_seal(f, &err) || !checkpoint_read_state(f, &r->state, &err)) fail(1, &err);
    char *chosen_out = mem_text(opts.out);
    adopt_options(&r->state, path);
    opts.out = chosen_out;
    r->resumed_at = r->state.tokens;
    r->floor = opts.floor > 0 ? opts.floor : NAN;
    fprintf(stderr, "resume: %s, step %lld, %lld tokens\n", path, (long long)r->state.step, (long long)r->state.tokens);
    mem_free(path);
    return f;
}

static void branch_off(struct run *r) {
    amount.decay_tokens = whole_batches(opts.decay_tokens ? (double)opts.decay_tokens : 0.25 * (double)r->state.tokens);
    amount.tokens = r->state.tokens + amount.decay_tokens;
    if ((double)amount.decay_tokens < 0.05 * (double)amount.tokens)
        fprintf(stderr, "note: a decay of %.1f%% of the tokens is short; 10%% to 20%% is usual\n",
                100 * (double)amount.decay_tokens / (double)amount.tokens);
    if (!schedule_find(opts.schedule)->decays)
        refuse(2, "--decay-from needs a schedule with a decay phase; %s has none", opts.schedule);
}

// ---- the loop -----------------------------------------------------------------------------------------------------

static void save(struct run *r, const char *folder, int keep) {
    struct err err;
    double start = time_now();
    keep_options(r);
    if (checkpoint_save(folder, r->model, r->tokenizer, r->optimizer, &r->state, keep, &err))
        progress_note(&r->progress, "saved %s/ckpt-%lld.gguf in %.1f s", folder, (long long)r->state.tokens, time_now() - start);
    else progress_note(&r->progress, "warning: not saved: %s", err.text);
    r->last_save = time_now();
}

// Mean loss over windows spread evenly through the validation tokens.
static double evaluate(struct run *r, int64_t tokens) {
    int64_t windows = loader_windows(&r->valid, opts.seq), wanted = tokens / opts.seq, T = opts.seq, scored = 0;
    if (wanted < 1) wanted = 1;
    if (wanted > windows) wanted = windows;
    double sum = 0;
    for (int64_t w = 0; w < wanted && !stop_wanted;) {
        int64_t n = wanted - w < r->micro_seq ? wanted - w : r->micro_seq;
        for (int64_t i = 0; i < n; i++)
            loader_window(&r->valid, T, (w + i) * windows / wanted, (int32_t)(i * T), r->ids + i * T, r->targets + i * T,
                          r->doc_start + i * T);
        train_loss(r->acts, &(struct train_batch){n * T, T, r->ids, r->targets, r->doc_start}, 0, r->losses);
        for (int64_t i = 0; i < n * T; i++) sum += r->losses[i], scored += r->targets[i] >= 0;
        w += n;
    }
    return scored ? sum / (double)scored : NAN;
}

// Adds an evaluation to the log and tells it; returns nats per byte.
static double log_evaluation(struct run *r, int64_t tokens) {
    if (loader_windows(&r->valid, opts.seq) < 1) return NAN;
    double loss = evaluate(r, tokens), per_byte = loss * (double)r->valid.count / r->valid.bytes;
    if (stop_wanted) return NAN;
    struct log_row row = {.step = r->state.step, .tokens = r->state.tokens, .loss = NAN, .lr = NAN, .grad_norm = NAN,
                          .dt_ms = NAN, .tok_per_s = NAN, .val_loss = loss, .val_nats_per_byte = per_byte};
    // A run that was killed after this evaluation has it in its log already.
    if (r->evaluated_at != r->state.tokens) log_add(r->log, &row);
    r->evaluated_at = r->state.tokens;
    r->last_eval = r->state.seconds;
    char count[32];
    text_count(count, (double)r->state.tokens);
    if (isfinite(r->floor))
        progress_note(&r->progress, "%s tokens: validation loss %.4f, %.4f nats per byte, %+.1f%% of the best possible %.4f",
                      count, loss, per_byte, 100 * (per_byte / r->floor - 1), r->floor);
    else progress_note(&r->progress, "%s tokens: validation loss %.4f, %.4f nats per byte", count, loss, per_byte);
    return per_byte;
}

// One step. False when a signal came between micro-batches: the partial gradient is dropped.
static bool step(struct run *r) {
    int64_t T = opts.seq, first = r->state.step * r->n_seq;
    int64_t scored = 0;
    double start = time_now(), sum = 0, lr = schedule_lr(&r->schedule, (double)r->state.tokens);
    r->backend->begin();
    train_zero_grads(r->acts);
    for (int64_t s = 0; s < r->n_seq; s += r->micro_seq) {
        int64_t n = r->n_seq - s < r->micro_seq ? r->n_seq - s : r->micro_seq;
        for (int64_t i = 0; i < n; i++)
            loader_sequence(&r->train, T, r->state.seed, first + s + i, (int32_t)(i * T), r->ids + i * T, r->targets + i * T,
                            r->doc_start + i * T);
        train_loss(r->acts, &(struct train_batch){n * T, T, r->ids, r->targets, r->doc_start},
                   1 / (float)amount.batch_tokens, r->losses);
        // Row by row, so that the split into micro-batches does not show in the last bits.
        for (int64_t i = 0; i < n * T; i++) sum += r->losses[i], scored += r->targets[i] >= 0;
        if (stop_wanted) return false;
    }
    train_close_grads(r->acts);
    double loss = sum / (double)(scored ? scored : 1), norm = optimizer_grad_norm(r->optimizer);
    enum guard_verdict verdict = guard_judge(&r->state.guard, loss, norm);
    r->state.step++;
    if (verdict == GUARD_KEEP) optimizer_step(r->optimizer, lr, norm, r->state.step - r->state.guard.skipped);
    r->backend->end();
    r->state.tokens += amount.batch_tokens;
    double seconds = time_now() - start;
    r->state.seconds += seconds;
    struct log_row row = {r->state.step, r->state.tokens, loss, lr, norm, seconds * 1e3, (double)amount.batch_tokens / seconds,
                          NAN, NAN, verdict == GUARD_KEEP ? NULL : guard_name(verdict)};
    log_add(r->log, &row);
    if (verdict != GUARD_KEEP)
        progress_note(&r->progress, "step %lld skipped: %s (loss %g, gradient norm %g)", (long long)r->state.step,
                      guard_name(verdict), loss, norm);
    if (verdict == GUARD_NOT_FINITE && r->state.guard.in_a_row >= 20)
        refuse(1, "the loss was not finite 20 steps in a row; the checkpoints in %s are from before: lower --lr", opts.out);
    double eta = amount.tokens ? (double)(amount.tokens - r->state.tokens) / (double)amount.batch_tokens * seconds
                          : opts.time - r->state.seconds;
    char done[32], speed[32], left[32];
    progress_line(&r->progress, r->state.step == 1, "step %lld | %s tokens | loss %.4f | lr %.2e | norm %.3f | %s tok/s | eta %s",
                  (long long)r->state.step, text_count(done, (double)r->state.tokens), loss, lr, norm,
                  text_count(speed, (double)amount.batch_tokens / seconds), text_time(left, eta > 0 ? eta : 0));
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
    if (!s->kind->decays || s->decay <= 0) return false;
    double at = s->total - s->decay, now = (double)r->state.tokens;
    return now >= at && now < at + s->batch && r->state.tokens > r->resumed_at;
}

static bool finished(const struct run *r) { return amount.tokens && r->state.tokens >= amount.tokens; }

// By --eval-every, else ten times in a run; the last one is finish()'s.
static bool evaluation_due(const struct run *r) {
    if (finished(r) || r->state.step == 0) return false;
    if (opts.eval_every) return r->state.step % opts.eval_every == 0;
    if (opts.time > 0 && !opts.tokens && !opts.steps) return r->state.seconds - r->last_eval > opts.time / 10;
    return r->state.step % (int64_t)fmax(1, ceil((double)amount.tokens / (double)amount.batch_tokens / 10)) == 0;
}

static void print_profile(void) {
    struct text table = {0};
    backend_profile(&table);
    fputs(table.data, stderr);
    text_free(&table);
}

static void loop(struct run *r) {
    bool guarded = false;
    // The checkpoint was written before its evaluation; when the run was killed in between, it is made now.
    if (r->resumed_at && r->evaluated_at < r->state.tokens && evaluation_due(r)) log_evaluation(r, opts.eval_tokens);
    while (!finished(r) && !stop_wanted) {
        if (opts.profile && guarded) backend_profile_run(true);
        if (!step(r)) break;
        if (opts.profile) backend_profile_run(false);
        if (!guarded) mem_freeze(true), guarded = true;
        mem_freeze(false);
        place_decay(r);
        bool trunk_done = decay_begins(r);
        if (trunk_done) { // kept apart and for ever: from here any other decay can start
            struct text folder = {0};
            text_fmt(&folder, "%s/trunk", opts.out);
            struct err err;
            if (file_make_folder(folder.data, &err)) save(r, folder.data, 1000);
            else progress_note(&r->progress, "warning: not saved: %s", err.text);
            text_free(&folder);
        }
        bool by_steps = opts.save_every && r->state.step % opts.save_every == 0;
        bool eval_due = evaluation_due(r);
        double since_save = time_now() - r->last_save;
        if (by_steps || since_save > opts.save_seconds || (eval_due && since_save > 30)) save(r, opts.out, (int)opts.keep);
        if (eval_due) log_evaluation(r, opts.eval_tokens);
        mem_freeze(true);
    }
    if (guarded) mem_freeze(false);
    progress_close(&r->progress);
    if (opts.profile) print_profile();
}

// ---- the end ------------------------------------------------------------------------------------------------------

struct sample {
    struct text text;
    bool echo;
};

static bool take_token(void *arg, const struct token_event *e) {
    struct sample *s = arg;
    text_add(&s->text, e->bytes, e->n);
    if (s->echo) fwrite(e->bytes, 1, e->n, stdout), fflush(stdout);
    return !stop_wanted;
}

// Prints texts of the new model to standard output and keeps them for the report.
static char **write_samples(struct run *r) {
    struct err err;
    char **texts = mem_array((size_t)opts.samples + 1, sizeof *texts, "samples");
    struct session_options so = {.ctx = opts.seq};
    struct session *session = opts.samples ? session_new(r->model, &so, &err) : NULL;
    if (opts.samples && !session) fail(1, &err);
    for (int64_t i = 0; i < opts.samples && !stop_wanted; i++) {
        struct sampler_options options = sampler_defaults;
        options.seed = opts.seed + i;
        struct sampler *sampler = sampler_new(&options, r->model->config.V);
        struct ids prompt = {0};
        const char *begin = opts.prompt ? opts.prompt : "";
        tokenizer_encode(r->tokenizer, begin, strlen(begin), TOKENIZE_BOS, &prompt);
        if (!prompt.count) ids_add(&prompt, tokenizer_eos(r->tokenizer) >= 0 ? tokenizer_eos(r->tokenizer) : 0);
        struct sample s = {.echo = true};
        text_str(&s.text, begin);
        struct generate_options g = {.n = -1, .logprobs = -1};
        struct generate_stats stats;
        printf("\n--- sample %lld\n%s", (long long)i + 1, begin);
        session_rewind(session, 0);
        if (!generate(session, r->tokenizer, sampler, prompt.id, prompt.count, &g, take_token, &s, &stats, &err)) fail(1, &err);
        putchar('\n');
        texts[i] = s.text.data;
        ids_free(&prompt);
        sampler_free(sampler);
    }
    session_free(session);
    return texts;
}

static void write_report(struct run *r, char **samples, double final_per_byte) {
    struct err err;
    struct text path = {0}, page = {0}, facts[6] = {0};
    struct log_rows rows = {0};
    text_fmt(&path, "%s/log.jsonl", opts.out);
    text_fmt(&page, "%s/report.html", opts.out);
    if (!log_read(path.data, &rows, &err)) fail(1, &err);
    const struct model_config *c = &r->model->config;
    text_fmt(&facts[0], "%s, %lld parameters: %lld blocks of %lld channels, %lld heads (%lld kv), vocabulary %lld",
             c->family->name, (long long)config_params(c), (long long)c->L, (long long)c->C, (long long)c->H,
             (long long)c->G, (long long)c->V);
    text_fmt(&facts[1], "%lld in %lld steps of %lld", (long long)r->state.tokens, (long long)r->state.step, (long long)amount.batch_tokens);
    text_fmt(&facts[2], "%s, peak %g, warmup %.0f tokens, decay %s over %.0f tokens", opts.schedule, amount.lr, amount.warmup, opts.decay_shape,
             r->schedule.decay);
    text_fmt(&facts[3], "%.1f s", r->state.seconds);
    text_fmt(&facts[4], "%.4f", final_per_byte);
    r->backend->report(&facts[5]);
    const char *pairs[] = {"model", facts[0].data, "tokens", facts[1].data, "learning rate", facts[2].data, "training time",
                           facts[3].data, "validation, nats per byte", facts[4].data, "machine", facts[5].data};
    size_t n_samples = 0;
    while (n_samples < (size_t)opts.samples && samples[n_samples]) n_samples++;
    struct report report = {opts.out, &rows, pairs, COUNT_OF(pairs) / 2, (const char *const *)samples, n_samples, r->floor};
    if (!report_write(page.data, &report, &err)) fail(1, &err);
    draw_log(&rows, stderr);
    fprintf(stderr, "report: %s\n", page.data);
    text_free(&path);
    text_free(&page);
    for (size_t i = 0; i < COUNT_OF(facts); i++) text_free(&facts[i]);
    log_rows_free(&rows);
}

static void finish(struct run *r) {
    struct err err;
    struct text path = {0};
    save(r, opts.out, (int)opts.keep);
    double per_byte = log_evaluation(r, 16 * opts.eval_tokens);
    progress_close(&r->progress);
    if (!log_close(r->log, &err)) fail(1, &err);
    // The export reads its own file back, which takes the room of a second model: what only training needs goes first.
    train_state_free(r->acts);
    optimizer_free(r->optimizer);
    enum dtype dtype = dtype_from_name(opts.export_dtype);
    text_fmt(&path, "%s/model.gguf", opts.out);
    if (!checkpoint_export(path.data, r->model, r->tokenizer, dtype, &r->notes, &err)) fail(1, &err);
    print_notes(&r->notes);
    fprintf(stderr, "model: %s written, read back and compared; try  ./run -m %s\n", path.data, path.data);
    char **samples = write_samples(r);
    write_report(r, samples, per_byte);
    text_free(&path);
    for (int64_t i = 0; i < opts.samples; i++) mem_free(samples[i]);
    mem_free(samples);
}

// ---- set-up -------------------------------------------------------------------------------------------------------

static void parse_options(int argc, char **argv) {
    struct err err;
    struct opt_words rest = {0};
    if (!opt_parse(train_table, train_table_count, argc, argv, &rest, &err)) fail(2, &err);
    for (size_t i = 0; i < rest.count; i++) {
        mem_grow((void **)&opts.data.word, &opts.data.cap, opts.data.count + 1, sizeof *opts.data.word, "data path");
        opts.data.word[opts.data.count++] = rest.word[i];
        train_table[0].given = true;
    }
    mem_free(rest.word);
    if (opts.config && !opt_read_file(train_table, train_table_count, opts.config, &err)) fail(1, &err);
    enum dtype compute = dtype_from_name(opts.dtype), out = dtype_from_name(opts.export_dtype);
    if (compute != DTYPE_F32 && compute != DTYPE_BF16) refuse(2, "--dtype %s: expected f32 or bf16", opts.dtype);
    if (out == DTYPE_COUNT || !dtype_row(out)->from_f32) refuse(2, "--export-dtype %s is unknown; --list names them", opts.export_dtype);
    if (!schedule_find(opts.schedule)) refuse(2, "--schedule %s is unknown; --list names them", opts.schedule);
    if (!decay_find(opts.decay_shape)) refuse(2, "--decay-shape %s is unknown; --list names them", opts.decay_shape);
    if (!family_find(opts.family)) refuse(2, "--family %s is unknown; --list names them", opts.family);
    if (strcmp(opts.device, "auto") && strcmp(opts.device, "cpu"))
        refuse(1, "--device %s: this build computes on the CPU only", opts.device);
}

static void allocate(struct run *r) {
    struct err err;
    size_t rows = (size_t)(r->micro_seq * opts.seq);
    struct optimizer_options oo = {opts.beta1, opts.beta2, opts.eps, opts.weight_decay, opts.clip};
    r->optimizer = optimizer_new(r->model, &oo, &err);
    if (!r->optimizer) fail(1, &err);
    r->acts = train_state_new(r->model, r->micro_seq * opts.seq, opts.seq, &err);
    if (!r->acts) fail(1, &err);
    r->ids = mem_array(rows, sizeof *r->ids, "batch");
    r->targets = mem_array(rows, sizeof *r->targets, "batch");
    r->doc_start = mem_array(rows, sizeof *r->doc_start, "batch");
    r->losses = mem_array(rows, sizeof *r->losses, "batch");
}

static void print_start(const struct run *r) {
    const struct model_config *c = &r->model->config;
    char params[32], batch[32], tokens[32];
    fprintf(stderr, "model: %s, %s parameters; %lld blocks, %lld channels, %lld heads of %lld (%lld kv), ffn %lld, vocabulary %lld\n",
            c->family->name, text_count(params, (double)config_params(c)), (long long)c->L, (long long)c->C,
            (long long)c->H, (long long)c->D, (long long)c->G, (long long)c->F, (long long)c->V);
    fprintf(stderr, "learning: %s, %s %g, batch of %s tokens, warmup %.0f tokens, %s%s\n", opts.schedule,
            strcmp(opts.schedule, "power") == 0 ? "cap" : "peak", amount.lr, text_count(batch, (double)amount.batch_tokens), amount.warmup,
            amount.tokens ? text_count(tokens, (double)amount.tokens) : "until the clock says decay", amount.tokens ? " tokens" : "");
}

// --help, --list, --plot: true when one of them was all that was asked for.
static bool small_mode(void) {
    struct err err;
    struct log_rows rows = {0};
    if (opts.help) {
        puts("usage: ./train [PATH...] [options]\nWith no path it writes stories of its own and learns them for two minutes.\n");
        opt_help(train_table, train_table_count, stdout);
    } else if (opts.list) {
        print_list();
    } else if (opts.plot) {
        if (!log_read(opts.plot, &rows, &err)) fail(1, &err);
        draw_log(&rows, stdout);
    } else {
        return false;
    }
    return true;
}

static void start_machine(struct run *r) {
    struct err err;
    struct text line = {0};
    pool_start((int)opts.threads);
    file_guard_sigbus();
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    r->backend = backend_cpu(opts.cpu, &err);
    if (!r->backend) fail(1, &err);
    if (opts.profile) r->backend = backend_profiled(r->backend);
    r->backend->report(&line);
    fprintf(opts.version ? stdout : stderr, "lehr train: %s\n", line.data);
    text_free(&line);
}

// The numbers of the run: from the checkpoint, or derived now.
static struct model_config settle(struct run *r, const struct model_file *checkpoint) {
    struct err err;
    struct model_config config;
    if (!checkpoint) {
        config = make_config(r);
        resolve_amounts(r, &config);
        r->state = (struct run_state){.batch_tokens = amount.batch_tokens, .T = opts.seq, .seed = (uint64_t)opts.seed,
                                      .data_hash = r->train.hash, .guard = {.limit = opts.guard}};
    } else {
        if (!config_read(&config, checkpoint, &err)) fail(1, &err);
        if (r->state.data_hash != r->train.hash && !opts.override)
            refuse(1, "the training text is not the one the checkpoint was made with (hash %016llx, now %016llx); --override goes on with it",
                   (unsigned long long)r->state.data_hash, (unsigned long long)r->train.hash);
        if (opts.decay_from) branch_off(r);
    }
    make_schedule(r);
    r->n_seq = amount.batch_tokens / opts.seq;
    r->micro_seq = micro_sequences(amount.batch_tokens);
    return config;
}

static char *in_out(const char *name) {
    struct text path = {0};
    text_fmt(&path, "%s/%s", opts.out, name);
    return path.data;
}

// The log, and the settings of the run as a file that --config takes. report.html is the last thing a run writes, so
// one from before must go: it would say that this run is complete.
static void open_records(struct run *r) {
    struct err err;
    struct text settings = {0};
    struct log_rows rows = {0};
    char *log_path = in_out("log.jsonl"), *config_path = in_out("config"), *report_path = in_out("report.html");
    unlink(report_path);
    r->log = log_open(log_path, r->state.tokens ? r->state.tokens : -1, &err);
    if (!r->log || !log_read(log_path, &rows, &err)) fail(1, &err);
    r->evaluated_at = -1;
    for (size_t i = 0; i < rows.count; i++)
        if (isfinite(rows.row[i].val_loss)) r->evaluated_at = rows.row[i].tokens;
    log_rows_free(&rows);
    opt_write(train_table, train_table_count, &settings);
    struct file_out *f = file_out_open(config_path, &err);
    if (!f) fail(1, &err);
    file_out_write(f, settings.data, settings.len);
    if (!file_out_commit(f, &err)) fail(1, &err);
    mem_free(log_path);
    mem_free(config_path);
    mem_free(report_path);
    text_free(&settings);
}

int main(int argc, char **argv) {
    struct err err = {""};
    parse_options(argc, argv);
    if (small_mode()) return 0;
    struct run r = {.floor = opts.floor > 0 ? opts.floor : NAN};
    start_machine(&r);
    if (opts.version) return 0;
    if (!file_make_folder(opts.out, &err)) fail(1, &err);
    struct model_file *checkpoint = find_checkpoint(&r);
    if (!opts.data.count) make_stories(&r);
    make_data(&r, checkpoint);
    struct model_config config = settle(&r, checkpoint);
    if (opts.plan) {
        struct plan plan;
        measured_tokens_per_s(&r, &config, &plan);
        plan_print(&plan, stdout);
        return 0;
    }
    r.model = model_new(&config, r.backend, dtype_from_name(opts.dtype), (uint64_t)opts.seed, &err);
    if (!r.model) fail(1, &err);
    allocate(&r);
    if (checkpoint && !checkpoint_read_tensors(checkpoint, r.model, r.optimizer, &err)) fail(1, &err);
    model_file_close(checkpoint);
    print_start(&r);
    char *report = in_out("report.html");
    if (checkpoint && finished(&r) && file_exists(report)) {
        fprintf(stderr, "this run is complete: see %s/model.gguf; give another --out, or --decay-from %s/trunk/ckpt-N.gguf, for something new\n", opts.out, opts.out);
        return 0;
    }
    mem_free(report);
    open_records(&r);
    progress_open(&r.progress, 5);
    r.last_save = time_now();

    loop(&r);
    if (stop_wanted) {
        save(&r, opts.out, (int)opts.keep);
        progress_close(&r.progress);
        fprintf(stderr, "interrupted; the same command goes on from here\n");
        return 130;
    }
    finish(&r);
    return stop_wanted ? 130 : 0;
}
