// train_setup.c: what a run is made of: text, tokenizer and tokens, and the numbers that the options leave open.
#include "train.h"

#include "data/stories.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void print_notes(struct text *notes) {
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
void make_stories(struct run *r) {
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

void make_data(struct run *r, const struct model_file *from) {
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

// ---- numbers ------------------------------------------------------------------------------------------------------

void set_depth(struct model_config *c) {
    c->depth = depth_rule_find(opts.depth_rule);
    c->base_layers = opts.base_layers;
    if (!c->depth) refuse(2, "--depth-rule %s is unknown; --list names them", opts.depth_rule);
    if (c->depth != &depth_rules[0] && !c->family->multipliers)
        refuse(2, "--depth-rule %s needs a family with multipliers; %s has none", opts.depth_rule, c->family->name);
}

struct model_config make_config(const struct run *r) {
    struct err err;
    struct model_config c;
    if (!config_from_size(&c, family_find(opts.family), opts.size, tokenizer_vocab(r->tokenizer), opts.seq, &err)) fail(2, &err);
    if (opts.width) c.C = opts.width;
    if (opts.layers) c.L = opts.layers;
    if (opts.heads) c.H = opts.heads;
    if (opts.heads || opts.kv_heads) c.G = opts.kv_heads ? opts.kv_heads : opts.heads;
    if (opts.head_size || opts.width || opts.heads) c.D = opts.head_size ? opts.head_size : c.C / c.H;
    if (opts.experts || opts.experts_used) {
        if (!c.E) refuse(2, "--experts needs a family with experts, such as granitemoe; %s has none", c.family->name);
        c.E = opts.experts ? opts.experts : c.E;
        c.used = opts.experts_used ? opts.experts_used : c.used;
    }
    if (opts.ffn || opts.width || opts.experts_used) c.F = opts.ffn;
    c.tied = opts.tied;
    c.init_std = (float)opts.init_std;
    set_depth(&c);
    config_derive(&c);
    if (opts.embedding_scale > 0) c.m_emb = (float)opts.embedding_scale;
    if (opts.attention_scale > 0) c.m_attn = (float)opts.attention_scale;
    if (opts.residual_scale > 0) c.m_res = (float)opts.residual_scale;
    if (!c.family->multipliers && (opts.embedding_scale > 0 || opts.attention_scale > 0 || opts.residual_scale > 0))
        refuse(2, "--embedding-scale, --attention-scale and --residual-scale need a family with multipliers; %s has none", c.family->name);
    if (!config_check(&c, &err)) fail(2, &err);
    return c;
}

// The Step Law's batch for D tokens of training, in whole sequences and not below about a thousand tokens.
static int64_t default_batch(double D, int64_t T) {
    int64_t sequences = (int64_t)(step_law_batch(D) / (double)T + 0.5), least = (1024 + T - 1) / T;
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

int64_t micro_sequences(int64_t batch_tokens) {
    int64_t n = opts.micro_batch ? opts.micro_batch : opts.seq >= 4096 ? 1 : 4096 / opts.seq, all = batch_tokens / opts.seq;
    return n > all && all > 0 ? all : n;
}

static struct plan_of plan_of(const struct run *r, const struct model_config *c) {
    int64_t batch = amount.batch_tokens ? amount.batch_tokens : 8 * opts.seq, micro = micro_sequences(batch) * opts.seq;
    return (struct plan_of){.config = c, .backend = r->backend, .compute = dtype_from_name(opts.dtype), .optimizer = optimizer_find(opts.optimizer),
                            .micro_rows = micro, .T = opts.seq, .batch_tokens = batch, .tokens = amount.tokens,
                            .data_bytes = (size_t)(r->train.count + r->valid.count) * (r->train.t16 ? 2 : 4), .memory = (size_t)opts.memory};
}

void plan_run(const struct run *r, const struct model_config *c, struct plan *plan) {
    struct err err;
    const struct plan_of of = plan_of(r, c);
    if (!plan_make(plan, &of, &err)) fail(1, &err);
}

size_t memory_for_activations(const struct run *r, const struct model_config *c) {
    struct err err;
    struct plan p;
    char again[160], need[32], there[32];
    const struct plan_of of = plan_of(r, c);
    if (!plan_memory(&p, &of, &err)) fail(1, &err);
    size_t all = p.weights_bytes + p.grads_bytes + p.moments_bytes + p.activations_bytes;
    if (*plan_recomputed(again, &p)) fprintf(stderr, "memory: %s for activations; %s\n", text_bytes(need, (double)p.activations_bytes), again);
    if (p.available_bytes && all > p.available_bytes)
        fprintf(stderr, "warning: this run takes %s of memory, and %s are free: take a smaller --size or shorter --seq\n",
                text_bytes(need, (double)all), text_bytes(there, (double)p.available_bytes));
    return p.memory;
}

int64_t whole_batches(double tokens) {
    double steps = ceil(tokens / (double)amount.batch_tokens);
    return (int64_t)(steps < 1 ? 1 : steps) * amount.batch_tokens;
}

// A tenth is enough for long runs (MiniCPM); short ones gain from more: at 1.5M tokens 0.6 beats 0.4 beats 0.2 here.
static double default_decay(double D) { return D >= 1e9 ? 0.1 : D >= 1e7 ? 0.2 : 0.5; }

// How much in all: from --tokens, --steps or the clock. 0: the clock decides later.
void resolve_tokens(double expected) {
    bool phase = schedule_find(opts.schedule)->curve != NULL;
    amount.tokens = opts.steps ? opts.steps * amount.batch_tokens : opts.tokens ? whole_batches((double)opts.tokens) : 0;
    // A schedule that needs its horizon gets the expected one; the others place their decay by the clock.
    if (!amount.tokens && !phase) amount.tokens = whole_batches(expected);
    amount.decay = opts.decay >= 0 ? opts.decay : default_decay(expected);
    if (amount.tokens && phase) amount.decay_tokens = (int64_t)(amount.decay * (double)amount.tokens);
}

// Turns what the user said, or left open, into numbers: from here on nothing is "auto".
void resolve_amounts(struct run *r, const struct model_config *c) {
    if (opts.steps && opts.tokens) refuse(2, "--steps and --tokens both say how much; give one");
    if (!opts.steps && !opts.tokens && opts.time <= 0) opts.time = 120;
    double expected = (double)opts.tokens;
    if (!opts.tokens && !opts.steps) {
        struct plan plan;
        plan_run(r, c, &plan);
        expected = opts.time * plan.tokens_per_s;
    }
    amount.batch_tokens = opts.batch_tokens ? opts.batch_tokens : default_batch(opts.steps ? 2e6 : expected, opts.seq);
    if (amount.batch_tokens % opts.seq)
        refuse(2, "--batch-tokens %lld is no multiple of --seq %lld", (long long)amount.batch_tokens, (long long)opts.seq);
    if (opts.steps) expected = (double)(opts.steps * amount.batch_tokens);
    resolve_tokens(expected);
    if (amount.tokens) expected = (double)amount.tokens;
    double batch = (double)amount.batch_tokens;
    amount.lr = opts.lr > 0 ? opts.lr : default_lr(c, expected) * optimizer_find(opts.optimizer)->lr;
    amount.power_a = opts.power_a > 0 ? opts.power_a : default_power_a(batch);
    amount.warmup = opts.warmup < 0    ? 0
                    : opts.warmup == 0 ? fmax(0.02 * expected, fmin(50 * batch, 0.1 * expected))
                    : opts.warmup < 1  ? opts.warmup * expected
                                    : opts.warmup;
    amount.warmup = ceil(amount.warmup / batch) * batch;
    amount.batch_ramp = opts.batch_ramp < 1 ? opts.batch_ramp * expected : opts.batch_ramp;
    amount.cool = opts.cool < 1 ? opts.cool * expected : opts.cool;
}

void make_schedule(struct run *r) {
    r->schedule = (struct schedule){
        .kind = schedule_find(opts.schedule), .lr = amount.lr, .total = amount.tokens ? (double)amount.tokens : INFINITY,
        .warmup = amount.warmup, .decay = (double)amount.decay_tokens, .shape = decay_find(opts.decay_shape), .final = opts.final,
        .power_a = amount.power_a, .power_b = opts.power_b, .batch = (double)amount.batch_tokens,
        .phi = opts.phi, .hold = opts.hold, .cool = amount.cool,
    };
}

// The rule is made anew, its state stays. Power has the batch in its law; elsewhere Adam's root is the default.
void make_batch(struct run *r) {
    struct batch_rule *b = &r->state.batch;
    b->kind = batch_rule_find(opts.batch_rule);
    b->most = (double)amount.batch_tokens;
    const int64_t eighth = amount.batch_tokens / 8 / opts.seq * opts.seq;
    b->least = (double)(opts.batch_least ? opts.batch_least : eighth ? eighth : opts.seq);
    b->ramp = amount.batch_ramp;
    b->theta = opts.batch_theta;
    b->T = opts.seq;
    bool power = strcmp(opts.schedule, "power") == 0;
    r->batch_lr = batch_lr_rule_find(*opts.batch_lr ? opts.batch_lr : power ? "none" : "sqrt");
    if (b->least > b->most || (int64_t)b->least % opts.seq)
        refuse(2, "--batch-least %.0f should be a multiple of --seq, %lld, and at most the batch, %lld", b->least, (long long)opts.seq,
               (long long)amount.batch_tokens);
}
