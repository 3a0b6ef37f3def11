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

void print_tokens(const char *name, const struct tokens *t) {
    char count[32], bytes[32];
    fprintf(stderr, "%s: %s tokens, %s, %.3f bytes per token, %lld documents, hash %016llx\n", name,
            text_count(count, (double)t->count), text_bytes(bytes, t->bytes), t->count ? t->bytes / (double)t->count : 0,
            (long long)t->documents, (unsigned long long)t->hash);
}

// A text as tokens, with a share of it held out; nothing of a token shard is.
static void make_tokens(struct run *r, const struct corpus *c, double share, struct tokens *train, struct tokens *valid) {
    struct err err;
    if (c->shards.count && (c->n_docs || c->shards.count > 1))
        refuse(2, "give one .tok file, or text, not both: %s", c->shards.word[0]);
    bool fine = c->shards.count ? tokens_open(train, c->shards.word[0], tokenizer_hash(r->tokenizer), tokenizer_vocab(r->tokenizer), &err)
                                : tokens_make(c, r->tokenizer, share, train, valid, &err);
    if (!fine) fail(1, &err);
    if (!opts.doc_mask) train->start = valid->start = -1;
}

void need_a_sequence(const char *what, const struct tokens *t) {
    if (t->count < opts.seq + 1)
        refuse(1, "the %s has %lld tokens, but one sequence needs %lld: add text or lower --seq", what, (long long)t->count, (long long)opts.seq + 1);
}

static const double replay_usual = 0.05; // where the texts are alike (Ibrahim et al. 2024, arXiv 2403.08763)

// The old text beside the new one, split as it was when it was new: what the model has not seen of it is not seen now.
static void make_replay(struct run *r) {
    struct corpus corpus = {0};
    if (opts.replay_share >= 0 && !opts.replay.count) refuse(2, "--replay-share is a share of --replay, which is missing");
    r->mixture = (struct mixture){1, {&r->train}, {1}};
    if (!opts.replay.count) return;
    if (opts.replay_share < 0) opts.replay_share = replay_usual;
    read_corpus(&corpus, &opts.replay);
    make_tokens(r, &corpus, opts.valid_share, &r->replay, &r->replay_valid);
    corpus_free(&corpus);
    print_tokens("replay", &r->replay);
    print_tokens("validation of it", &r->replay_valid);
    if (opts.replay_share <= 0) return;
    need_a_sequence("text to replay", &r->replay);
    r->mixture = (struct mixture){2, {&r->train, &r->replay}, {1 - opts.replay_share, opts.replay_share}};
}

void make_data(struct run *r, const struct model_file *from) {
    struct err err;
    struct corpus corpus = {0}, held_out = {0};
    read_corpus(&corpus, &opts.data);
    r->tokenizer = from ? tokenizer_of_model(from, NULL, &err) : make_tokenizer(&corpus);
    if (!r->tokenizer) fail(1, &err);
    make_tokens(r, &corpus, opts.valid.count ? 0 : opts.valid_share, &r->train, &r->valid);
    if (opts.valid.count) {
        struct tokens none = {0};
        read_corpus(&held_out, &opts.valid);
        make_tokens(r, &held_out, 0, &r->valid, &none);
    }
    corpus_free(&corpus);
    corpus_free(&held_out);
    print_tokens("training", &r->train);
    print_tokens("validation", &r->valid);
    need_a_sequence("training text", &r->train);
    make_replay(r);
}

// ---- size ---------------------------------------------------------------------------------------------------------

enum { STEPS_TOKENS = 2000000 }; // for a number of steps: D follows from the batch, so it is taken to be this

// The Step Law's batch for D tokens of training, in whole sequences and not below about a thousand tokens.
int64_t default_batch(double D) {
    int64_t T = opts.seq, sequences = (int64_t)(rule_value("batch-tokens", &(struct known){.tokens = D}) / (double)T + 0.5), least = (1024 + T - 1) / T;
    return (sequences < least ? least : sequences) * T;
}

static struct model_config sized_config(const struct run *r, const char *size) {
    struct err err;
    struct model_config c;
    if (!config_from_size(&c, family_find(opts.family), size, tokenizer_vocab(r->tokenizer), opts.seq, &err)) fail(2, &err);
    return c;
}

// What the rules know of a model; how much it is to learn they are told later.
static struct known known_of(const struct run *r, const struct model_config *c) {
    return (struct known){
        .params = (double)config_params(c), .body = (double)(config_params(c) - c->V * c->C), .text = (double)r->train.count / r->mixture.share[0], .goes_on = r->source != NULL,
        .ratio = opts.ratio, .mup = c->mup, .power = strcmp(opts.schedule, "power") == 0};
}

static bool clock_decides(void) { return opts.time > 0 && !opts.tokens && !opts.steps; }

// By the ratio of their sizes.
static const char *nearest_size(const struct run *r, double params) {
    const char *best = config_size_name(0);
    double least = INFINITY;
    for (int i = 0; config_size_name(i); i++) {
        struct model_config c = sized_config(r, config_size_name(i));
        double far = fabs(log((double)config_params(&c) / params));
        if (far < least) least = far, best = config_size_name(i);
    }
    return best;
}

// Tokens a second of a size, measured; kept, as it is most likely the one of the run.
static double measure_pace(struct run *r, const struct model_config *c) {
    struct plan plan;
    plan_run(r, c, &plan);
    return r->pace = plan.tokens_per_s;
}

// The largest size that gets its tokens in the time if it is computed at so many operations a second.
static const char *size_in_time(const struct run *r, double operations) {
    const char *best = config_size_name(0);
    for (int i = 0; config_size_name(i); i++) {
        struct model_config c = sized_config(r, config_size_name(i));
        double tokens = opts.time * operations / config_flops_per_token(&c, opts.seq);
        if (tokens >= opts.ratio * (double)config_params(&c)) best = config_size_name(i);
    }
    return best;
}

// Measured at the smallest size, and once more at the one that this points to: large products are faster.
static const char *size_by_clock(struct run *r) {
    const char *size = config_size_name(0), *next = size;
    for (int i = 0; i < 2 && (i == 0 || next != size); i++) {
        size = next;
        struct model_config c = sized_config(r, size);
        next = size_in_time(r, measure_pace(r, &c) * config_flops_per_token(&c, opts.seq));
    }
    if (next != size) r->pace = 0;
    return next;
}

// One of size, tokens and time is enough. A shape is as good as a size; with nothing at all it is two minutes.
static void choose_size(struct run *r) {
    bool shaped = opts.width || opts.layers;
    if (!*opts.size && !shaped && !opts.steps && !opts.tokens && opts.time <= 0) opts.time = 120;
    r->size_is_derived = !*opts.size && !shaped;
    if (*opts.size) return;
    struct known k = {.tokens = (double)opts.tokens, .ratio = opts.ratio};
    if (opts.steps) k.tokens = (double)(opts.steps * (opts.batch_tokens ? opts.batch_tokens : default_batch(STEPS_TOKENS)));
    opts.size = mem_text(shaped            ? config_size_name(0)
                         : clock_decides() ? size_by_clock(r)
                                           : nearest_size(r, rule_value("size", &k)));
}

// ---- numbers ------------------------------------------------------------------------------------------------------

void set_depth(struct model_config *c) {
    c->depth = depth_rule_find(opts.depth_rule);
    c->base_layers = opts.base_layers;
    if (!c->depth) refuse(2, "--depth-rule %s is unknown; --list names them", opts.depth_rule);
    if (c->depth != &depth_rules[0] && !c->family->multipliers)
        refuse(2, "--depth-rule %s needs a family with multipliers; %s has none", opts.depth_rule, c->family->name);
}

void set_exit(struct model_config *c) {
    if (opts.exit_layer >= c->L) refuse(2, "--exit-layer %lld: expected fewer than the %lld layers of the model", (long long)opts.exit_layer, (long long)c->L);
    c->exit_layer = opts.exit_layer;
}

struct model_config make_config(struct run *r) {
    struct err err;
    if (r->draft) draft_shape(r);
    choose_size(r);
    struct model_config c = sized_config(r, opts.size);
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
    set_exit(&c);
    config_derive(&c);
    if (opts.embedding_scale > 0) c.m_emb = (float)opts.embedding_scale;
    if (opts.attention_scale > 0) c.m_attn = (float)opts.attention_scale;
    if (opts.residual_scale > 0) c.m_res = (float)opts.residual_scale;
    if (!c.family->multipliers && (opts.embedding_scale > 0 || opts.attention_scale > 0 || opts.residual_scale > 0))
        refuse(2, "--embedding-scale, --attention-scale and --residual-scale need a family with multipliers; %s has none", c.family->name);
    if (!config_check(&c, &err)) fail(2, &err);
    return c;
}

struct model_config config_at_width(const struct model_config *c, int64_t width) {
    struct model_config w = *c;
    int64_t share = c->H / c->G;
    w.C = width, w.H = width / c->D;
    w.G = w.H % share ? w.H : w.H / share;
    w.F = (c->F * width / c->C + 31) / 32 * 32;
    config_derive(&w);
    w.m_emb = c->m_emb, w.m_attn = c->m_attn, w.m_res = c->m_res;
    return w;
}

int64_t micro_sequences(int64_t batch_tokens) {
    int64_t n = opts.micro_batch ? opts.micro_batch : opts.seq >= 4096 ? 1 : 4096 / opts.seq, all = batch_tokens / opts.seq;
    return n > all && all > 0 ? all : n;
}

static struct plan_of plan_of(const struct run *r, const struct model_config *c) {
    int64_t batch = amount.batch_tokens ? amount.batch_tokens : 8 * opts.seq, micro = micro_sequences(batch) * opts.seq;
    return (struct plan_of){.config = c, .backend = r->backend, .compute = dtype_from_name(opts.dtype), .optimizer = optimizer_find(opts.optimizer),
                            .micro_rows = micro, .T = opts.seq, .batch_tokens = batch, .tokens = amount.tokens ? amount.tokens : (int64_t)r->known.tokens,
                            .data_bytes = (size_t)(r->train.count + r->valid.count + r->replay.count + r->replay_valid.count) * (r->train.t16 ? 2 : 4), .memory = (size_t)opts.memory};
}

void plan_run(const struct run *r, const struct model_config *c, struct plan *plan) {
    struct err err;
    const struct plan_of of = plan_of(r, c);
    if (!plan_make(plan, &of, &err)) fail(1, &err);
    if (opts.save_aside) plan_add_copy(plan);
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

// How much in all: from --tokens, --steps or a rule. 0: the clock decides later.
void resolve_tokens(double expected) {
    bool phase = schedule_find(opts.schedule)->curve != NULL;
    // When nothing was said, a schedule that needs its horizon gets the expected one; the others place their decay by the clock.
    if (opts.tokens) expected = (double)opts.tokens;
    amount.tokens = opts.steps ? opts.steps * amount.batch_tokens : clock_decides() && phase ? 0 : whole_batches(expected);
    amount.decay = opts.decay >= 0 ? opts.decay : rule_value("decay", &(struct known){.tokens = expected});
    if (amount.tokens && phase) amount.decay_tokens = (int64_t)(amount.decay * (double)amount.tokens);
    for (size_t i = 0; i < opts.ladder.count; i++) { // a rung branches off what no decay has touched
        double share, own;
        rung_read(opts.ladder.word[i], &share, &own);
        if (share * (1 - own) > 1 - amount.decay + 1e-9)
            refuse(2, "--ladder %s would leave the trunk at %.4g of its tokens, but its own decay begins at %.4g: give the rung more decay, or the trunk less by --decay",
                opts.ladder.word[i], share * (1 - own), 1 - amount.decay);
    }
}

bool rung_read(const char *word, double *share, double *decay) {
    char *end;
    *share = strtod(word, &end);
    *decay = amount.decay;
    if (*end == ':') {
        *decay = strtod(end + 1, &end);
        if (!(*decay > 0 && *decay <= 1)) return false;
    }
    return !*end && *share > 0 && *share < 1;
}

// Turns what the user said, or left open, into numbers: from here on nothing is "auto".
void resolve_amounts(struct run *r, const struct model_config *c) {
    struct known k = known_of(r, c);
    if (clock_decides()) {
        k.seconds = opts.time;
        k.pace = r->pace > 0 ? r->pace : measure_pace(r, c);
    }
    k.tokens = opts.tokens ? (double)opts.tokens : opts.steps ? STEPS_TOKENS : rule_value("tokens", &k);
    amount.batch_tokens = opts.batch_tokens ? opts.batch_tokens : default_batch(k.tokens);
    if (amount.batch_tokens % opts.seq)
        refuse(2, "--batch-tokens %lld is no multiple of --seq %lld", (long long)amount.batch_tokens, (long long)opts.seq);
    if (opts.steps) k.tokens = (double)(opts.steps * amount.batch_tokens);
    resolve_tokens(k.tokens);
    if (amount.tokens) k.tokens = (double)amount.tokens;
    const double batch = k.batch = (double)amount.batch_tokens, D = k.tokens;
    amount.lr = opts.lr > 0 ? opts.lr : rule_value("lr", &k) * optimizer_find(opts.optimizer)->lr;
    amount.power_a = opts.power_a > 0 ? opts.power_a : rule_value("power-a", &k);
    amount.warmup = opts.warmup < 0 ? 0 : opts.warmup == 0 ? rule_value("warmup", &k) : opts.warmup < 1 ? opts.warmup * D : opts.warmup;
    amount.warmup = ceil(amount.warmup / batch) * batch;
    amount.batch_ramp = opts.batch_ramp < 1 ? opts.batch_ramp * D : opts.batch_ramp;
    amount.cool = opts.cool < 1 ? opts.cool * D : opts.cool;
    r->known = k;
}

// One line for each number that nobody gave: its rule, where that comes from, and whether it was fitted for such a run.
enum { OFTEN = 4 }; // up to so many readings are worth about as much as new text (Muennighoff et al. 2023)

void print_derived(const struct run *r) {
    const struct known *k = &r->known;
    const double factor = optimizer_find(opts.optimizer)->lr;
    const struct {
        const char *name;
        bool open;
        double value;
    } rows[] = {
        {"size", r->size_is_derived, k->params},
        {"tokens", !opts.tokens && !opts.steps, k->tokens},
        {"batch-tokens", !opts.batch_tokens, k->batch},
        {"lr", opts.lr <= 0, amount.lr},
        {"power-a", k->power && opts.power_a <= 0, amount.power_a},
        {"warmup", opts.warmup == 0, amount.warmup},
        {"decay", schedule_find(opts.schedule)->curve && opts.decay < 0, amount.decay},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (!rows[i].open) continue;
        const struct rule *rule = rule_find(rows[i].name, k);
        char value[32], here[32], low[32], high[32];
        text_count(value, rows[i].value);
        if (rows[i].value < 1000) snprintf(value, sizeof value, "%.4g", rows[i].value);
        fprintf(stderr, "derived: --%s %s: %s", rule->name, i == 0 ? opts.size : value, rule->help);
        if (i == 1 && k->seconds > 0) fprintf(stderr, ", %s tokens/s", text_count(here, k->pace));
        if (strcmp(rule->name, "lr") == 0 && factor != 1) fprintf(stderr, ", %g times that for %s", factor, opts.optimizer);
        fprintf(stderr, " [%s]", rule->source);
        if (rule->of)
            fprintf(stderr, "; fitted for %s to %s %s, %s: %s", text_count(low, rule->low), text_count(high, rule->high), rule->what,
                    rule_is_inside(rule, k) ? "inside" : "OUTSIDE", text_count(here, rule->of(k)));
        fputc('\n', stderr);
    }
    if (opts.dropout == 0 && k->text > 0 && k->tokens > OFTEN * k->text)
        fprintf(stderr, "hint: the text is read %.0f times; --dropout 0.1 may help [Xue et al. 2023, arXiv 2305.13230]\n", k->tokens / k->text);
}

struct optimizer_options optimizer_options_of_run(void) {
    const struct optimizer_row *row = optimizer_find(opts.optimizer);
    return (struct optimizer_options){.row = row, .beta1 = opts.beta1 >= 0 ? opts.beta1 : row->beta1, .beta2 = opts.beta2 >= 0 ? opts.beta2 : row->beta2,
                                      .eps = opts.eps, .weight_decay = opts.weight_decay, .clip = opts.clip, .momentum = opts.momentum};
}

void make_schedule(struct run *r) {
    r->schedule = (struct schedule){
        .kind = schedule_find(opts.schedule), .lr = amount.lr, .total = amount.tokens ? (double)amount.tokens : INFINITY,
        .warmup = amount.warmup, .decay = (double)amount.decay_tokens, .shape = decay_find(opts.decay_shape), .final = opts.final,
        .power_a = amount.power_a, .power_b = opts.power_b, .power_c = opts.power_c, .batch = (double)amount.batch_tokens,
        .phi = opts.phi, .hold = opts.hold, .cool = amount.cool, .seen = (double)r->state.tokens_before,
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

void start_run(struct run *r) {
    r->state = (struct run_state){.batch_tokens = amount.batch_tokens, .T = opts.seq, .seed = (uint64_t)opts.seed,
                                  .data_hash = mixture_hash(&r->mixture), .guard = {.limit = opts.guard}, .good = -1};
    make_schedule(r);
    make_batch(r);
    r->micro_seq = micro_sequences(amount.batch_tokens);
}

static const char *const balance_names[] = {[BALANCE_NONE] = "none", [BALANCE_GLOBAL] = "global", [BALANCE_SEQUENCE] = "sequence"};
static enum balance balance_of(const char *name) {
    for (size_t i = 0; i < COUNT_OF(balance_names); i++)
        if (strcmp(balance_names[i], name) == 0) return (enum balance)i;
    refuse(2, "--balance %s: expected global, sequence or none", name);
}

void allocate_run(struct run *r, size_t memory) {
    struct err err;
    size_t rows = (size_t)(r->micro_seq * opts.seq);
    struct optimizer_options oo = optimizer_options_of_run();
    r->optimizer = optimizer_new(r->model, &oo, &err);
    if (!r->optimizer) fail(1, &err);
    r->acts = train_state_new(r->model, r->micro_seq * opts.seq, opts.seq, memory, &err);
    if (!r->acts) fail(1, &err);
    const struct objective aim = {.balance = balance_of(opts.balance), .balance_coef = opts.balance_coef, .router_z = opts.router_z, .head_z = opts.head_z,
                                  .exit_weight = r->model->config.exit_layer ? opts.exit_weight : 0};
    train_state_aim(r->acts, &aim);
    r->ids = mem_array(rows, sizeof *r->ids, "batch");
    r->targets = mem_array(rows, sizeof *r->targets, "batch");
    r->doc_start = mem_array(rows, sizeof *r->doc_start, "batch");
    r->losses = mem_array(rows, sizeof *r->losses, "batch");
    r->layer_norms = mem_array((size_t)r->model->config.L + 2, sizeof *r->layer_norms, "norms of the gradient");
}

void free_run(struct run *r) {
    train_state_free(r->acts);
    optimizer_free(r->optimizer);
    model_free(r->model);
    mem_free(r->ids);
    mem_free(r->targets);
    mem_free(r->doc_start);
    mem_free(r->losses);
    mem_free(r->layer_norms);
}
