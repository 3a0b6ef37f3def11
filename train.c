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

// ---- options ----------------------------------------------------------------------------------------------------

static struct {
    struct opt_words data, valid;
    const char *out, *config, *family, *size, *tokenizer, *schedule, *decay_shape, *decay_from, *dtype, *device, *cpu,
        *export_dtype, *plot, *prompt;
    int64_t width, layers, heads, kv_heads, head_size, ffn;
    int64_t seq, batch_tokens, micro_batch, tokens, steps, decay_tokens, seed, threads;
    int64_t save_every, keep, eval_every, eval_tokens, samples, tokenizer_bytes, story_bytes;
    double time, lr, warmup, decay, final, power_a, power_b, beta1, beta2, eps, weight_decay, clip, guard, valid_share,
        save_seconds, floor, embedding_scale, attention_scale, residual_scale, init_std;
    bool override, resume, plan, list, help, version, tied, doc_mask;
} o = {
    .out = "out", .family = "granite", .size = "1M", .tokenizer = "bpe:4096", .schedule = "power",
    .decay_shape = "linear", .dtype = "f32", .device = "auto", .export_dtype = "f32",
    .seq = 1024, .seed = 1, .keep = 2, .eval_every = 0, .eval_tokens = 65536, .samples = 3,
    .story_bytes = 20000000, .decay = -1, .power_b = -0.51, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1,
    .clip = 1, .guard = 6, .valid_share = 0.05, .save_seconds = 600, .floor = 0, .resume = true, .tied = true, .doc_mask = true,
};

// clang-format off
static struct opt table[] = { // --data stays first: words without an option go there
    {"--data", OPT_MANY, &o.data, 0, 0, "PATH", "[Data] text to learn: .txt, .jsonl, folders, .tok, - for standard input; the option's name may be left out", 0},
    {"--story-bytes", OPT_INT, &o.story_bytes, 10000, 1e12, "N", "with no path: how much of our own stories to write and learn", 0},
    {"--valid", OPT_MANY, &o.valid, 0, 0, "PATH", "text to validate on; without it --valid-share of the documents, chosen by their hash", 0},
    {"--valid-share", OPT_REAL, &o.valid_share, 0, 0.5, "X", "share of documents (or of the end of a single one) kept for validation", 0},
    {"--tokenizer", OPT_TEXT, &o.tokenizer, 0, 0, "WHAT", "bpe:N trains one of N tokens on the data; byte; or a GGUF file that carries one", 0},
    {"--tokenizer-bytes", OPT_INT, &o.tokenizer_bytes, 0, 1e15, "N", "train the tokenizer on about this many bytes (0: up to 64m)", 0},
    {"--doc-mask", OPT_FLAG, &o.doc_mask, 0, 0, "", "attention stays inside a document", 0},
    {"-o --out", OPT_TEXT, &o.out, 0, 0, "FOLDER", "[Files] where checkpoints, model.gguf, log.jsonl and report.html go", 0},
    {"--config", OPT_TEXT, &o.config, 0, 0, "FILE", "read options from a file of `name = value` lines; the command line wins", 0},
    {"--save-seconds --save-minutes", OPT_TIME, &o.save_seconds, 1, 1e9, "TIME", "write a checkpoint at least this often", 0},
    {"--save-every", OPT_INT, &o.save_every, 0, 1e15, "STEPS", "and every so many steps", 0},
    {"--keep", OPT_INT, &o.keep, 1, 1e6, "N", "how many checkpoints to keep", 0},
    {"--resume --auto-resume", OPT_FLAG, &o.resume, 0, 0, "", "continue from the newest whole checkpoint in the folder", 0},
    {"--override", OPT_FLAG, &o.override, 0, 0, "", "let the command line change what a checkpoint was started with", 0},
    {"--export-dtype", OPT_TEXT, &o.export_dtype, 0, 0, "TYPE", "matrices of model.gguf: f32, f16, bf16, q8_0, q4_0", 0},
    {"--family", OPT_TEXT, &o.family, 0, 0, "NAME", "[Model] granite (muP, four multipliers) or llama; --list names all", 0},
    {"--size", OPT_TEXT, &o.size, 0, 0, "SIZE", "1M 3M 10M 30M 70M 125M 350M 1B 3B", 0},
    {"--width --n-embd", OPT_INT, &o.width, 0, 65536, "N", "channels, instead of the size's", 0},
    {"--layers --n-layer", OPT_INT, &o.layers, 0, 1024, "N", "blocks, instead of the size's", 0},
    {"--heads --n-head", OPT_INT, &o.heads, 0, 1024, "N", "query heads, instead of the size's", 0},
    {"--kv-heads", OPT_INT, &o.kv_heads, 0, 1024, "N", "key/value heads, instead of the size's", 0},
    {"--head-size", OPT_INT, &o.head_size, 0, 1024, "N", "channels of a head, instead of width / heads", 0},
    {"--ffn", OPT_INT, &o.ffn, 0, 1 << 20, "N", "feed-forward width, instead of the size's", 0},
    {"--tied", OPT_FLAG, &o.tied, 0, 0, "", "the head is the embedding", 0},
    {"--embedding-scale", OPT_REAL, &o.embedding_scale, 0, 1e4, "X", "multiplier of embeddings (granite); 0: 12", 0},
    {"--attention-scale", OPT_REAL, &o.attention_scale, 0, 100, "X", "multiplier of q.k; 0: 1/head size (granite), 1/sqrt(head size) (llama)", 0},
    {"--residual-scale", OPT_REAL, &o.residual_scale, 0, 100, "X", "multiplier of branches (granite); 0: 1.4/sqrt(layers)", 0},
    {"--init-std", OPT_REAL, &o.init_std, 0, 10, "X", "standard deviation at the start; 0: 0.1 (granite), 0.02 (llama)", 0},
    {"--tokens", OPT_INT, &o.tokens, 0, 1e15, "N", "[How much] tokens to train on; 20m is twenty million", 0},
    {"--time", OPT_TIME, &o.time, 0, 1e9, "TIME", "or how long: 2m, 8h; the decay phase is placed by the clock", 0},
    {"--steps --max-iters", OPT_INT, &o.steps, 0, 1e12, "N", "or how many steps", 0},
    {"--seq --block-size", OPT_INT, &o.seq, 8, 1 << 20, "N", "tokens of a sequence", 0},
    {"--batch-tokens", OPT_INT, &o.batch_tokens, 0, 1e12, "N", "tokens of a step; 0: by the Step Law, 0.58 D^0.571", 0},
    {"--micro-batch", OPT_INT, &o.micro_batch, 0, 1 << 20, "N", "sequences computed at once: memory and speed, never the result (0: about 4096 tokens)", 0},
    {"--schedule", OPT_TEXT, &o.schedule, 0, 0, "NAME", "[Learning] power, wsd, cosine, linear, constant; --list explains", 0},
    {"--lr", OPT_REAL, &o.lr, 0, 100, "X", "peak learning rate, for power the cap; 0: the family's default", 0},
    {"--warmup", OPT_REAL, &o.warmup, -1, 1e15, "N", "tokens of warmup; below 1 a share of all; 0: 2% or 50 steps, whichever is longer; -1: none", 0},
    {"--decay", OPT_REAL, &o.decay, -1, 1, "X", "share of the tokens spent in the decay phase (power, wsd); -1: 0.1, below 1G tokens 0.2, below 10M 0.5", 0},
    {"--decay-shape", OPT_TEXT, &o.decay_shape, 0, 0, "NAME", "linear, 1-sqrt, exponential, cosine", 0},
    {"--final", OPT_REAL, &o.final, 0, 1, "X", "floor of the decay as a share", 0},
    {"--decay-from", OPT_TEXT, &o.decay_from, 0, 0, "CKPT", "cool down any checkpoint: branch off with --decay-tokens into another --out", 0},
    {"--decay-tokens", OPT_INT, &o.decay_tokens, 0, 1e15, "N", "length of that branch; 0: 25% of what the checkpoint has seen", 0},
    {"--power-a", OPT_REAL, &o.power_a, 0, 1000, "X", "amplitude of the power law; 0: 4, and below 64k tokens a batch 4 sqrt(64k / batch)", 0},
    {"--power-b", OPT_REAL, &o.power_b, -2, 0, "X", "exponent of the power law", 0},
    {"--beta1", OPT_REAL, &o.beta1, 0, 0.99999, "X", "AdamW", 0},
    {"--beta2", OPT_REAL, &o.beta2, 0, 0.999999, "X", "AdamW", 0},
    {"--eps", OPT_REAL, &o.eps, 0, 1, "X", "AdamW", 0},
    {"--weight-decay", OPT_REAL, &o.weight_decay, 0, 10, "X", "AdamW, on matrices; multiplied by the learning rate", 0},
    {"--clip", OPT_REAL, &o.clip, 0, 1e9, "X", "global gradient norm; 0: off", 0},
    {"--guard", OPT_REAL, &o.guard, 0, 1e9, "Z", "skip a step whose loss or gradient norm is Z deviations above the last 128; 0: only non-finite", 0},
    {"-s --seed", OPT_INT, &o.seed, 0, 9e18, "N", "of initialisation and data order", 0},
    {"--eval-every", OPT_INT, &o.eval_every, 0, 1e12, "STEPS", "[Watching] validate every so many steps; 0: about ten times in a run", 0},
    {"--eval-tokens", OPT_INT, &o.eval_tokens, 0, 1e15, "N", "tokens of such a validation; the last one takes up to sixteen times as many", 0},
    {"--samples", OPT_INT, &o.samples, 0, 1000, "N", "texts to print at the end", 0},
    {"-p --prompt", OPT_TEXT, &o.prompt, 0, 0, "TEXT", "how the samples begin", 0},
    {"--floor", OPT_REAL, &o.floor, 0, 100, "X", "entropy of the source in nats per byte, 0 when unknown: drawn and compared", 0},
    {"-t --threads", OPT_INT, &o.threads, 0, 256, "N", "[Machine] 0: physical cores that this process may use", 0},
    {"--device", OPT_TEXT, &o.device, 0, 0, "NAME", "auto or cpu", 0},
    {"--cpu", OPT_TEXT, &o.cpu, 0, 0, "LEVEL", "plain, avx2 or avx512 instead of the best present", 0},
    {"--dtype", OPT_TEXT, &o.dtype, 0, 0, "TYPE", "f32, or bf16 products with f32 master weights", 0},
    {"--plan", OPT_FLAG, &o.plan, 0, 0, "", "[Other] measure two seconds, print memory and time this run would take, and stop", 0},
    {"--plot", OPT_TEXT, &o.plot, 0, 0, "LOG", "draw a log.jsonl in the terminal and stop", 0},
    {"--list", OPT_FLAG, &o.list, 0, 0, "", "families, schedules, decay shapes and dtypes", 0},
    {"--version", OPT_FLAG, &o.version, 0, 0, "", "version and the kernels this machine would use", 0},
    {"-h --help", OPT_FLAG, &o.help, 0, 0, "", "this text", 0},
};
// clang-format on

// What the options came to: every number a step depends on, with nothing left open. Kept in checkpoints after the options.
static struct {
    int64_t tokens, batch_tokens, decay_tokens; // tokens 0: not placed yet, --time will
    double lr, warmup, power_a, decay; // decay: the share
} amount;
static struct opt amounts[] = {
    {"--tokens", OPT_INT, &amount.tokens, 0, 0, "", "", 0},   {"--batch-tokens", OPT_INT, &amount.batch_tokens, 0, 0, "", "", 0},
    {"--decay-tokens", OPT_INT, &amount.decay_tokens, 0, 0, "", "", 0}, {"--lr", OPT_REAL, &amount.lr, 0, 0, "", "", 0},
    {"--warmup", OPT_REAL, &amount.warmup, 0, 0, "", "", 0}, {"--power-a", OPT_REAL, &amount.power_a, 0, 0, "", "", 0},
    {"--decay", OPT_REAL, &amount.decay, 0, 0, "", "", 0},
};
static const char amounts_follow[] = "# what these came to\n";

// What a resumed run may change without changing what is learned.
static const char *const free_options[] = {
    "out", "config", "save-seconds", "save-every", "keep", "resume", "override", "export-dtype", "micro-batch", "eval-every",
    "eval-tokens", "samples", "prompt", "floor", "threads", "device", "cpu", "plan", "plot", "list", "version", "help", "time",
    "decay-from", "decay-tokens", "data"};

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
    double last_save, floor;
    int64_t resumed_at; // tokens
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
    text_fmt(&path, "%s/stories.txt", o.out);
    if (!stories_write_file(path.data, 1, (size_t)o.story_bytes, &r->floor))
        refuse(1, "%s: the stories could not be written; is the disk full?", path.data);
    fprintf(stderr, "data: no text was named, so stories of our own were written to %s; a perfect model would score %.4f nats per byte\n",
            path.data, r->floor);
    o.floor = r->floor; // a resumed run reads the file and still knows it
    mem_grow((void **)&o.data.word, &o.data.cap, 1, sizeof *o.data.word, "data path");
    o.data.word[o.data.count++] = mem_text(path.data);
    text_free(&path);
}

static struct tokenizer *make_tokenizer(const struct corpus *c) {
    struct err err;
    int64_t vocab = 0;
    if (strncmp(o.tokenizer, "bpe:", 4) != 0) {
        struct tokenizer *t = tokenizer_open(o.tokenizer, -1, &err);
        if (!t) fail(1, &err);
        return t;
    }
    char *end;
    vocab = strtoll(o.tokenizer + 4, &end, 10);
    if (*end || vocab < 257 || vocab > 1 << 20)
        refuse(2, "--tokenizer %s: expected bpe:N with N from 257 to 1048576", o.tokenizer);
    if (!c->n_docs) refuse(2, "token shards need the tokenizer they were made with: give it by --tokenizer FILE");
    struct span *docs = mem_array(c->n_docs, sizeof *docs, "list of documents");
    for (size_t i = 0; i < c->n_docs; i++) {
        size_t from = i ? c->doc_end[i - 1] : 0;
        docs[i] = (struct span){c->bytes.data + from, c->doc_end[i] - from};
    }
    double start = time_now();
    size_t most = o.tokenizer_bytes ? (size_t)o.tokenizer_bytes : (size_t)64 << 20;
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
    read_corpus(&corpus, &o.data);
    r->tokenizer = from ? tokenizer_from_file(from, &err) : make_tokenizer(&corpus);
    if (!r->tokenizer) fail(1, &err);
    uint64_t hash = tokenizer_hash(r->tokenizer);
    if (corpus.shards.count) {
        if (corpus.n_docs || corpus.shards.count > 1)
            refuse(2, "give one .tok file, or text, not both: %s", corpus.shards.word[0]);
        if (!tokens_open(&r->train, corpus.shards.word[0], hash, tokenizer_vocab(r->tokenizer), &err)) fail(1, &err);
    } else {
        double share = o.valid.count ? 0 : o.valid_share;
        if (!tokens_make(&corpus, r->tokenizer, share, &r->train, &r->valid, &err)) fail(1, &err);
    }
    if (o.valid.count) {
        read_corpus(&held_out, &o.valid);
        struct tokens none = {0};
        bool fine = held_out.shards.count
                        ? tokens_open(&r->valid, held_out.shards.word[0], hash, tokenizer_vocab(r->tokenizer), &err)
                        : tokens_make(&held_out, r->tokenizer, 0, &r->valid, &none, &err);
        if (!fine) fail(1, &err);
    }
    corpus_free(&corpus);
    corpus_free(&held_out);
    if (!o.doc_mask) r->train.start = r->valid.start = -1;
    print_tokens("training", &r->train);
    print_tokens("validation", &r->valid);
    if (r->train.count < o.seq + 1)
        refuse(1, "the training text has %lld tokens, but one sequence needs %lld: add text or lower --seq",
               (long long)r->train.count, (long long)o.seq + 1);
}

static struct model_config make_config(const struct run *r) {
    struct err err;
    struct model_config c;
    if (!config_from_size(&c, family_find(o.family), o.size, tokenizer_vocab(r->tokenizer), o.seq, &err)) fail(2, &err);
    if (o.width) c.C = o.width;
    if (o.layers) c.L = o.layers;
    if (o.heads) c.H = o.heads;
    if (o.heads || o.kv_heads) c.G = o.kv_heads ? o.kv_heads : o.heads;
    if (o.head_size || o.width || o.heads) c.D = o.head_size ? o.head_size : c.C / c.H;
    if (o.ffn) c.F = o.ffn;
    else if (o.width) c.F = (c.C * 8 / 3 + 31) / 32 * 32;
    c.tied = o.tied;
    c.init_std = (float)o.init_std;
    config_derive(&c);
    if (o.embedding_scale > 0) c.m_emb = (float)o.embedding_scale;
    if (o.attention_scale > 0) c.m_attn = (float)o.attention_scale;
    if (o.residual_scale > 0) c.m_res = (float)o.residual_scale;
    if (!c.family->multipliers && (o.embedding_scale > 0 || o.attention_scale > 0 || o.residual_scale > 0))
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
// proportional to the batch comes out far too small; Adam's square-root rule (methods A.4) carries the law on from 64k.
enum { POWER_LEAST_BATCH = 1 << 16 };

static double default_power_a(double batch) {
    return batch >= POWER_LEAST_BATCH ? 4 : 4 * sqrt(POWER_LEAST_BATCH / batch);
}

// Peak learning rate when none is given. Granite: base rates of muP, the paper's cap for power where its law was
// fitted, else .01 (MiniCPM; also best here for a million parameters, .005 and .02 are worse). Llama has no muP, so
// Step Law by size and tokens, kept inside what small models stand.
static double default_lr(const struct model_config *c, double D) {
    bool power = strcmp(o.schedule, "power") == 0;
    if (c->mup) return power && amount.batch_tokens >= POWER_LEAST_BATCH ? 0.02 : 0.01;
    double lr = 1.79 * pow((double)(config_params(c) - c->V * c->C), -0.713) * pow(D, 0.307);
    return lr < 1e-4 ? 1e-4 : lr > 4e-3 ? 4e-3 : lr;
}

static int64_t micro_sequences(int64_t batch_tokens) {
    int64_t n = o.micro_batch ? o.micro_batch : o.seq >= 4096 ? 1 : 4096 / o.seq, all = batch_tokens / o.seq;
    return n > all && all > 0 ? all : n;
}

static double measured_tokens_per_s(const struct run *r, const struct model_config *c, struct plan *plan) {
    struct err err;
    int64_t batch = amount.batch_tokens ? amount.batch_tokens : 8 * o.seq, micro = micro_sequences(batch) * o.seq;
    size_t data_bytes = (size_t)(r->train.count + r->valid.count) * (r->train.t16 ? 2 : 4);
    if (!plan_make(plan, c, r->backend, dtype_from_name(o.dtype), micro, o.seq, batch, amount.tokens, data_bytes, &err)) fail(1, &err);
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
    bool phase = schedule_find(o.schedule)->decays;
    amount.tokens = o.steps ? o.steps * amount.batch_tokens : o.tokens ? whole_batches((double)o.tokens) : 0;
    // A schedule that needs its horizon gets the expected one; power and wsd place their decay by the clock.
    if (!amount.tokens && !phase) amount.tokens = whole_batches(expected);
    amount.decay = o.decay >= 0 ? o.decay : default_decay(expected);
    if (amount.tokens && phase) amount.decay_tokens = (int64_t)(amount.decay * (double)amount.tokens);
}

// Turns what the user said, or left open, into numbers: from here on nothing is "auto".
static void resolve_amounts(struct run *r, const struct model_config *c) {
    if (o.steps && o.tokens) refuse(2, "--steps and --tokens both say how much; give one");
    if (!o.steps && !o.tokens && o.time <= 0) o.time = 120;
    double expected = (double)o.tokens;
    if (!o.tokens && !o.steps) {
        struct plan plan;
        expected = o.time * measured_tokens_per_s(r, c, &plan);
    }
    amount.batch_tokens = o.batch_tokens ? o.batch_tokens : step_law_batch(o.steps ? 2e6 : expected, o.seq);
    if (amount.batch_tokens % o.seq)
        refuse(2, "--batch-tokens %lld is no multiple of --seq %lld", (long long)amount.batch_tokens, (long long)o.seq);
    if (o.steps) expected = (double)(o.steps * amount.batch_tokens);
    resolve_tokens(expected);
    if (amount.tokens) expected = (double)amount.tokens;
    double batch = (double)amount.batch_tokens;
    amount.lr = o.lr > 0 ? o.lr : default_lr(c, expected);
    amount.power_a = o.power_a > 0 ? o.power_a : default_power_a(batch);
    amount.warmup = o.warmup < 0    ? 0
                    : o.warmup == 0 ? fmax(0.02 * expected, fmin(50 * batch, 0.1 * expected))
                    : o.warmup < 1  ? o.warmup * expected
                                    : o.warmup;
    amount.warmup = ceil(amount.warmup / batch) * batch;
}

static void make_schedule(struct run *r) {
    r->schedule = (struct schedule){
        .kind = schedule_find(o.schedule), .lr = amount.lr, .total = amount.tokens ? (double)amount.tokens : INFINITY,
        .warmup = amount.warmup, .decay = (double)amount.decay_tokens, .shape = decay_find(o.decay_shape), .final = o.final,
        .power_a = amount.power_a, .power_b = o.power_b, .batch = (double)amount.batch_tokens,
    };
}

static void keep_options(struct run *r) {
    text_clear(&r->state.options);
    opt_write(table, COUNT_OF(table), &r->state.options);
    text_str(&r->state.options, amounts_follow);
    opt_write(amounts, COUNT_OF(amounts), &r->state.options);
}

// ---- resuming -----------------------------------------------------------------------------------------------------

static bool is_free(const char *name, size_t n) {
    for (size_t i = 0; i < COUNT_OF(free_options); i++)
        if (strlen(free_options[i]) == n && memcmp(free_options[i], name, n) == 0) return true;
    return false;
}

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
    opt_write(table, COUNT_OF(table), &now);
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        const char *name = strstr(table[i].names, "--") + 2;
        size_t n = strcspn(name, " ");
        if (!table[i].given || is_free(name, n) || o.override) continue;
        struct span ours = option_line(&now, name, n), theirs = option_line(&saved->options, name, n);
        if (!theirs.n || (ours.n == theirs.n && memcmp(ours.p, theirs.p, ours.n) == 0)) continue;
        refuse(2, "%s was started with `%.*s`, now `%.*s` is asked for; leave it out, use another --out, or force it with --override",
               path, (int)theirs.n, theirs.p, (int)ours.n, ours.p);
    }
    text_free(&now);
    const char *all = saved->options.data, *split = strstr(all, amounts_follow);
    if (!split) refuse(1, "%s does not say how its run was set up; it was not written by this program", path);
    size_t n = (size_t)(split - all);
    if (!opt_read_text(table, COUNT_OF(table), all, n, path, &err) ||
        !opt_read_text(amounts, COUNT_OF(amounts), split, saved->options.len - n, path, &err))
        fail(1, &err);
    if (o.override && (o.tokens || o.steps)) resolve_tokens((double)amount.tokens);
}

// The checkpoint to go on from: --decay-from, or the newest whole one in --out. NULL to start afresh.
static struct model_file *find_checkpoint(struct run *r) {
    struct err err = {""};
    char *path = NULL;
    if (o.decay_from) {
        path = mem_text(o.decay_from);
    } else if (!o.resume || !file_exists(o.out) || !checkpoint_newest(o.out, &path, &r->notes, &err)) {
        if (err.text[0]) fail(1, &err);
        print_notes(&r->notes);
        return NULL;
    }
    print_notes(&r->notes);
    struct model_file *f = model_file_open(path, &err);
    if (!f || !model_file_seal(f, &err) || !checkpoint_read_state(f, &r->state, &err)) fail(1, &err);
    char *chosen_out = mem_text(o.out);
    adopt_options(&r->state, path);
    o.out = chosen_out;
    r->resumed_at = r->state.tokens;
    r->floor = o.floor > 0 ? o.floor : NAN;
    fprintf(stderr, "resume: %s, step %lld, %lld tokens\n", path, (long long)r->state.step, (long long)r->state.tokens);
    mem_free(path);
    return f;
}

static void branch_off(struct run *r) {
    amount.decay_tokens = whole_batches(o.decay_tokens ? (double)o.decay_tokens : 0.25 * (double)r->state.tokens);
    amount.tokens = r->state.tokens + amount.decay_tokens;
    if ((double)amount.decay_tokens < 0.05 * (double)amount.tokens)
        fprintf(stderr, "note: a decay of %.1f%% of the tokens is short; 10%% to 20%% is usual\n",
                100 * (double)amount.decay_tokens / (double)amount.tokens);
    if (!schedule_find(o.schedule)->decays)
        refuse(2, "--decay-from needs a schedule with a decay phase; %s has none", o.schedule);
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
    int64_t windows = loader_windows(&r->valid, o.seq), wanted = tokens / o.seq, T = o.seq, scored = 0;
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
    if (loader_windows(&r->valid, o.seq) < 1) return NAN;
    double loss = evaluate(r, tokens), per_byte = loss * (double)r->valid.count / r->valid.bytes;
    if (stop_wanted) return NAN;
    struct log_row row = {.step = r->state.step, .tokens = r->state.tokens, .loss = NAN, .lr = NAN, .grad_norm = NAN,
                          .dt_ms = NAN, .tok_per_s = NAN, .val_loss = loss, .val_nats_per_byte = per_byte};
    log_add(r->log, &row);
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
    int64_t T = o.seq, first = r->state.step * r->n_seq;
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
        refuse(1, "the loss was not finite 20 steps in a row; the checkpoints in %s are from before: lower --lr", o.out);
    double eta = amount.tokens ? (double)(amount.tokens - r->state.tokens) / (double)amount.batch_tokens * seconds
                          : o.time - r->state.seconds;
    char done[32], speed[32], left[32];
    progress_line(&r->progress, r->state.step == 1, "step %lld | %s tokens | loss %.4f | lr %.2e | norm %.3f | %s tok/s | eta %s",
                  (long long)r->state.step, text_count(done, (double)r->state.tokens), loss, lr, norm,
                  text_count(speed, (double)amount.batch_tokens / seconds), text_time(left, eta > 0 ? eta : 0));
    return true;
}

// With --time: once the trunk has used its share of the clock, the rest of the time at the pace so far becomes the decay. From then
// on the run has an end in tokens, kept in checkpoints like any other option.
static void place_decay(struct run *r) {
    if (amount.tokens || r->state.seconds < o.time * (1 - amount.decay)) return;
    double pace = (double)r->state.tokens / r->state.seconds;
    int64_t steps = (int64_t)(pace * (o.time - r->state.seconds) / (double)amount.batch_tokens + 0.5);
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

static void loop(struct run *r) {
    int64_t eval_every = o.eval_every;
    double expected_steps = amount.tokens ? (double)amount.tokens / (double)amount.batch_tokens : 0, last_eval = 0;
    bool guarded = false;
    while (!finished(r) && !stop_wanted) {
        if (!step(r)) break;
        if (!guarded) mem_freeze(true), guarded = true;
        mem_freeze(false);
        place_decay(r);
        bool trunk_done = decay_begins(r);
        if (trunk_done) { // kept apart and for ever: from here any other decay can start
            struct text folder = {0};
            text_fmt(&folder, "%s/trunk", o.out);
            struct err err;
            if (file_make_folder(folder.data, &err)) save(r, folder.data, 1000);
            else progress_note(&r->progress, "warning: not saved: %s", err.text);
            text_free(&folder);
        }
        bool by_steps = o.save_every && r->state.step % o.save_every == 0;
        bool eval_due = eval_every ? r->state.step % eval_every == 0
                        : expected_steps > 0 ? r->state.step % (int64_t)fmax(1, ceil(expected_steps / 10)) == 0
                                             : r->state.seconds - last_eval > o.time / 10;
        double since_save = time_now() - r->last_save;
        if (by_steps || since_save > o.save_seconds || (eval_due && since_save > 30)) save(r, o.out, (int)o.keep);
        if (eval_due && !finished(r)) {
            log_evaluation(r, o.eval_tokens);
            last_eval = r->state.seconds;
        }
        mem_freeze(true);
    }
    if (guarded) mem_freeze(false);
    progress_close(&r->progress);
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
    char **texts = mem_array((size_t)o.samples + 1, sizeof *texts, "samples");
    struct session_options so = {.ctx = o.seq};
    struct session *session = o.samples ? session_new(r->model, &so, &err) : NULL;
    if (o.samples && !session) fail(1, &err);
    for (int64_t i = 0; i < o.samples && !stop_wanted; i++) {
        struct sampler_options options = sampler_defaults;
        options.seed = o.seed + i;
        struct sampler *sampler = sampler_new(&options, r->model->config.V);
        struct ids prompt = {0};
        const char *begin = o.prompt ? o.prompt : "";
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
    text_fmt(&path, "%s/log.jsonl", o.out);
    text_fmt(&page, "%s/report.html", o.out);
    if (!log_read(path.data, &rows, &err)) fail(1, &err);
    const struct model_config *c = &r->model->config;
    text_fmt(&facts[0], "%s, %lld parameters: %lld blocks of %lld channels, %lld heads (%lld kv), vocabulary %lld",
             c->family->name, (long long)config_params(c), (long long)c->L, (long long)c->C, (long long)c->H,
             (long long)c->G, (long long)c->V);
    text_fmt(&facts[1], "%lld in %lld steps of %lld", (long long)r->state.tokens, (long long)r->state.step, (long long)amount.batch_tokens);
    text_fmt(&facts[2], "%s, peak %g, warmup %.0f tokens, decay %s over %.0f tokens", o.schedule, amount.lr, amount.warmup, o.decay_shape,
             r->schedule.decay);
    text_fmt(&facts[3], "%.1f s", r->state.seconds);
    text_fmt(&facts[4], "%.4f", final_per_byte);
    r->backend->report(&facts[5]);
    const char *pairs[] = {"model", facts[0].data, "tokens", facts[1].data, "learning rate", facts[2].data, "training time",
                           facts[3].data, "validation, nats per byte", facts[4].data, "machine", facts[5].data};
    size_t n_samples = 0;
    while (n_samples < (size_t)o.samples && samples[n_samples]) n_samples++;
    struct report report = {o.out, &rows, pairs, COUNT_OF(pairs) / 2, (const char *const *)samples, n_samples, r->floor};
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
    save(r, o.out, (int)o.keep);
    double per_byte = log_evaluation(r, 16 * o.eval_tokens);
    progress_close(&r->progress);
    if (!log_close(r->log, &err)) fail(1, &err);
    // The export reads its own file back, which takes the room of a second model: what only training needs goes first.
    train_state_free(r->acts);
    optimizer_free(r->optimizer);
    enum dtype dtype = dtype_from_name(o.export_dtype);
    text_fmt(&path, "%s/model.gguf", o.out);
    if (!checkpoint_export(path.data, r->model, r->tokenizer, dtype, &r->notes, &err)) fail(1, &err);
    print_notes(&r->notes);
    fprintf(stderr, "model: %s written, read back and compared; try  ./run -m %s\n", path.data, path.data);
    char **samples = write_samples(r);
    write_report(r, samples, per_byte);
    text_free(&path);
    for (int64_t i = 0; i < o.samples; i++) mem_free(samples[i]);
    mem_free(samples);
}

// ---- set-up -------------------------------------------------------------------------------------------------------

static void parse_options(int argc, char **argv) {
    struct err err;
    struct opt_words rest = {0};
    if (!opt_parse(table, COUNT_OF(table), argc, argv, &rest, &err)) fail(2, &err);
    for (size_t i = 0; i < rest.count; i++) {
        mem_grow((void **)&o.data.word, &o.data.cap, o.data.count + 1, sizeof *o.data.word, "data path");
        o.data.word[o.data.count++] = rest.word[i];
        table[0].given = true;
    }
    mem_free(rest.word);
    if (o.config && !opt_read_file(table, COUNT_OF(table), o.config, &err)) fail(1, &err);
    enum dtype compute = dtype_from_name(o.dtype), out = dtype_from_name(o.export_dtype);
    if (compute != DTYPE_F32 && compute != DTYPE_BF16) refuse(2, "--dtype %s: expected f32 or bf16", o.dtype);
    if (out == DTYPE_COUNT || !dtype_row(out)->from_f32) refuse(2, "--export-dtype %s is unknown; --list names them", o.export_dtype);
    if (!schedule_find(o.schedule)) refuse(2, "--schedule %s is unknown; --list names them", o.schedule);
    if (!decay_find(o.decay_shape)) refuse(2, "--decay-shape %s is unknown; --list names them", o.decay_shape);
    if (!family_find(o.family)) refuse(2, "--family %s is unknown; --list names them", o.family);
    if (strcmp(o.device, "auto") && strcmp(o.device, "cpu"))
        refuse(1, "--device %s: this build computes on the CPU only", o.device);
}

static void allocate(struct run *r) {
    struct err err;
    size_t rows = (size_t)(r->micro_seq * o.seq);
    struct optimizer_options oo = {o.beta1, o.beta2, o.eps, o.weight_decay, o.clip};
    r->optimizer = optimizer_new(r->model, &oo, &err);
    if (!r->optimizer) fail(1, &err);
    r->acts = train_state_new(r->model, r->micro_seq * o.seq, o.seq, &err);
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
    fprintf(stderr, "learning: %s, %s %g, batch of %s tokens, warmup %.0f tokens, %s%s\n", o.schedule,
            strcmp(o.schedule, "power") == 0 ? "cap" : "peak", amount.lr, text_count(batch, (double)amount.batch_tokens), amount.warmup,
            amount.tokens ? text_count(tokens, (double)amount.tokens) : "until the clock says decay", amount.tokens ? " tokens" : "");
}

// --help, --list, --plot: true when one of them was all that was asked for.
static bool small_mode(void) {
    struct err err;
    struct log_rows rows = {0};
    if (o.help) {
        puts("usage: ./train [PATH...] [options]\nWith no path it writes stories of its own and learns them for two minutes.\n");
        opt_help(table, COUNT_OF(table), stdout);
    } else if (o.list) {
        print_list();
    } else if (o.plot) {
        if (!log_read(o.plot, &rows, &err)) fail(1, &err);
        draw_log(&rows, stdout);
    } else {
        return false;
    }
    return true;
}

static void start_machine(struct run *r) {
    struct err err;
    struct text line = {0};
    pool_start((int)o.threads);
    file_guard_sigbus();
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    r->backend = backend_cpu(o.cpu, &err);
    if (!r->backend) fail(1, &err);
    r->backend->report(&line);
    fprintf(o.version ? stdout : stderr, "lehr train: %s\n", line.data);
    text_free(&line);
}

// The numbers of the run: from the checkpoint, or derived now.
static struct model_config settle(struct run *r, const struct model_file *checkpoint) {
    struct err err;
    struct model_config config;
    if (!checkpoint) {
        config = make_config(r);
        resolve_amounts(r, &config);
        r->state = (struct run_state){.batch_tokens = amount.batch_tokens, .T = o.seq, .seed = (uint64_t)o.seed,
                                      .data_hash = r->train.hash, .guard = {.limit = o.guard}};
    } else {
        if (!config_read(&config, checkpoint, &err)) fail(1, &err);
        if (r->state.data_hash != r->train.hash && !o.override)
            refuse(1, "the training text is not the one the checkpoint was made with (hash %016llx, now %016llx); --override goes on with it",
                   (unsigned long long)r->state.data_hash, (unsigned long long)r->train.hash);
        if (o.decay_from) branch_off(r);
    }
    make_schedule(r);
    r->n_seq = amount.batch_tokens / o.seq;
    r->micro_seq = micro_sequences(amount.batch_tokens);
    return config;
}

// The log, and the settings of the run as a file that --config takes.
static void open_records(struct run *r) {
    struct err err;
    struct text log_path = {0}, config_path = {0}, settings = {0};
    text_fmt(&log_path, "%s/log.jsonl", o.out);
    text_fmt(&config_path, "%s/config", o.out);
    r->log = log_open(log_path.data, r->state.tokens ? r->state.tokens : -1, &err);
    if (!r->log) fail(1, &err);
    opt_write(table, COUNT_OF(table), &settings);
    struct file_out *f = file_out_open(config_path.data, &err);
    if (!f) fail(1, &err);
    file_out_write(f, settings.data, settings.len);
    if (!file_out_commit(f, &err)) fail(1, &err);
    text_free(&log_path);
    text_free(&config_path);
    text_free(&settings);
}

int main(int argc, char **argv) {
    struct err err = {""};
    parse_options(argc, argv);
    if (small_mode()) return 0;
    struct run r = {.floor = o.floor > 0 ? o.floor : NAN};
    start_machine(&r);
    if (o.version) return 0;
    if (!file_make_folder(o.out, &err)) fail(1, &err);
    struct model_file *checkpoint = find_checkpoint(&r);
    if (!o.data.count) make_stories(&r);
    make_data(&r, checkpoint);
    struct model_config config = settle(&r, checkpoint);
    if (o.plan) {
        struct plan plan;
        measured_tokens_per_s(&r, &config, &plan);
        plan_print(&plan, stdout);
        return 0;
    }
    r.model = model_new(&config, r.backend, dtype_from_name(o.dtype), (uint64_t)o.seed, &err);
    if (!r.model) fail(1, &err);
    allocate(&r);
    if (checkpoint && !checkpoint_read_tensors(checkpoint, r.model, r.optimizer, &err)) fail(1, &err);
    model_file_close(checkpoint);
    print_start(&r);
    if (checkpoint && finished(&r)) {
        fprintf(stderr, "this run is complete: see %s/model.gguf; give another --out, or --decay-from %s/trunk/ckpt-N.gguf, for something new\n", o.out, o.out);
        return 0;
    }
    open_records(&r);
    progress_open(&r.progress, 5);
    r.last_save = time_now();

    loop(&r);
    if (stop_wanted) {
        save(&r, o.out, (int)o.keep);
        progress_close(&r.progress);
        fprintf(stderr, "interrupted; the same command goes on from here\n");
        return 130;
    }
    finish(&r);
    return stop_wanted ? 130 : 0;
}
