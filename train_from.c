// train_from.c: --from: a new run that begins with the weights of a model there is.
//
// The shape, the family with its multipliers, the tokenizer and the depth rule are the file's: options that say otherwise are
// refused by name. Everything else is the new run's own: text and its order from sequence 0, amounts by the rules, a schedule
// that begins at token 0 with a warmup (re-warming) and ends in a decay (Gupta et al. 2023, arXiv 2308.04014; Ibrahim et al.
// 2024, arXiv 2403.08763). Two things are carried over from a checkpoint of ours and kept in those of the new run:
//
//   tokens_before  schedules that are laws of the tokens seen (power, infinite) go on counting: the rate returns to where
//                  the law is now and not to the cap, which is what makes a model forget. A file that does not say how
//                  many they were is taken to have seen --ratio a parameter.
//   the optimizer's state, with steps_before for its bias correction, where the optimizer is the same. Adam forgets it in
//                  some twenty steps, so behind a warmup it matters little; without one, as on the level part of
//                  infinite, first steps of the size of the rate would be a spike. Who wants the weights alone gives
//                  model.gguf.
//
// Foreign files give weights only. What is not f32 there becomes f32, which is exact for every type.
#include "train.h"

#include <math.h>
#include <string.h>

static bool is_checkpoint(const struct model_file *f) { return meta_kind(f, "train.version") != META_ABSENT; }

// Numbers of the shape, and what the options say; 0: nothing.
static void refuse_other_shape(const struct model_config *c) {
    const struct {
        const char *name;
        double wanted, there;
    } rows[] = {
        {"width", (double)opts.width, (double)c->C},
        {"layers", (double)opts.layers, (double)c->L},
        {"heads", (double)opts.heads, (double)c->H},
        {"kv-heads", (double)opts.kv_heads, (double)c->G},
        {"head-size", (double)opts.head_size, (double)c->D},
        {"ffn", (double)opts.ffn, (double)c->F},
        {"experts", (double)opts.experts, (double)c->E},
        {"experts-used", (double)opts.experts_used, (double)c->used},
        {"embedding-scale", opts.embedding_scale, (double)c->m_emb},
        {"attention-scale", opts.attention_scale, (double)c->m_attn},
        {"residual-scale", opts.residual_scale, (double)c->m_res},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (rows[i].wanted != 0 && fabs(rows[i].wanted - rows[i].there) > 1e-6 * fabs(rows[i].there))
            refuse(2, "--%s %g: %s has %g, and its shape is kept; leave the option out", rows[i].name, rows[i].wanted, opts.from, rows[i].there);
}

static void refuse_contradictions(const struct model_config *c) {
    refuse_other_shape(c);
    if (*opts.size) refuse(2, "--size %s: the size is that of %s; leave the option out", opts.size, opts.from);
    if (opts.init_std > 0) refuse(2, "--init-std: nothing is made anew, the weights are those of %s; leave the option out", opts.from);
    if (train_option_given("family") && strcmp(opts.family, c->family->name) != 0)
        refuse(2, "--family %s: %s is a %s model; leave the option out", opts.family, opts.from, c->family->name);
    if (train_option_given("tied") && opts.tied != c->tied)
        refuse(2, "--%stied: the head of %s is %s; leave the option out", opts.tied ? "" : "no-", opts.from, c->tied ? "the embedding" : "a matrix of its own");
    if (train_option_given("tokenizer") && strcmp(opts.tokenizer, opts.from) != 0)
        refuse(2, "--tokenizer %s: the weights of %s belong to its own tokenizer; leave the option out", opts.tokenizer, opts.from);
}

// What multiplied branches is in the file; what the rule does to rates is only in the options of its run.
static void take_depth_rule(struct run *r) {
    static const char *const names[] = {"depth-rule", "base-layers"};
    struct err err;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct span line = train_options_line(&r->source_state.options, names[i]);
        if (line.n && !train_option_given(names[i]) && !opt_read_text(train_table, train_table_count, line.p, line.n, opts.from, &err)) fail(1, &err);
    }
}

void open_source(struct run *r) {
    struct err err;
    struct model_config *c = &r->source_config;
    struct model_file *f = r->source = model_file_open(opts.from, &err);
    if (!f || !config_read(c, f, &err)) fail(1, &err);
    if (!config_trains(c, &err)) refuse(1, "%s: %s", opts.from, err.text);
    refuse_contradictions(c);
    if (is_checkpoint(f)) {
        struct span optimizer;
        if (!model_file_seal(f, &err) || !checkpoint_read_state(f, &r->source_state, &err) || !meta_text(f, "train.optimizer", true, &optimizer, &err)) fail(1, &err);
        if (span_is(optimizer, "schedule-free"))
            refuse(1, "%s holds the weights at which schedule-free took gradients, not their mean, which is the model: give the model.gguf of that run", opts.from);
        r->source_optimizer = span_is(optimizer, opts.optimizer);
        take_depth_rule(r);
    }
    // In the checkpoints and the config of the run, what the file decided stands as if it had been said.
    opts.family = c->family->name;
    opts.tied = c->tied;
    opts.tokenizer = opts.from;
    if (!train_option_given("seq") && c->ctx < opts.seq) opts.seq = c->ctx < 8 ? 8 : c->ctx;
    if (opts.seq > c->ctx)
        fprintf(stderr, "note: sequences of %lld tokens are longer than the %lld that %s was made for; the new model's context is %lld\n",
                (long long)opts.seq, (long long)c->ctx, opts.from, (long long)opts.seq);
    if (opts.seq > c->ctx) c->ctx = opts.seq;
    set_depth(c);
    if (c->exit_layer && !opts.exit_layer)
        fprintf(stderr, "note: %s has learned to be left behind layer %lld, which the new model will not have: --exit-layer %lld goes on with it\n", opts.from,
                (long long)c->exit_layer, (long long)c->exit_layer);
    set_exit(c);
}

void check_source_tokenizer(const struct run *r) {
    const int64_t V = r->source_config.V, n = tokenizer_vocab(r->tokenizer);
    if (V < n) refuse(1, "%s: the model has %lld tokens, its tokenizer %lld: they do not belong together", opts.from, (long long)V, (long long)n);
}

// Quantized weights, by the type of the first.
static void note_quantized(const struct model_file *f) {
    size_t n = 0, all = model_file_tensor_count(f);
    const struct file_tensor *first = NULL;
    for (size_t i = 0; i < all; i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (t->dtype != DTYPE_COUNT && dtype_row(t->dtype)->block_weights > 1 && n++ == 0) first = t;
    }
    if (n)
        fprintf(stderr, "note: %zu of %zu tensors of %s are quantized, %s as %s for one: they are learned on as f32, and what quantizing lost stays lost\n",
                n, all, opts.from, first->name, dtype_row(first->dtype)->name);
}

static bool counts_on(void) { return strcmp(opts.schedule, "power") == 0 || strcmp(opts.schedule, "infinite") == 0; }

void begin_from_source(struct run *r) {
    const struct run_state *s = &r->source_state;
    const bool checkpoint = is_checkpoint(r->source);
    char count[32];
    const double guess = opts.ratio * (double)config_params(&r->source_config);
    r->state.tokens_before = opts.from_tokens >= 0 ? opts.from_tokens : checkpoint ? s->tokens_before + s->tokens : (int64_t)guess;
    if (r->source_optimizer) r->state.steps_before = s->steps_before + s->step - s->guard.skipped;
    make_schedule(r);
    if (checkpoint)
        fprintf(stderr, "from: %s, a checkpoint at %s tokens; the state of its optimizer is %s\n", opts.from,
                text_count(count, (double)r->state.tokens_before), r->source_optimizer ? "taken over" : "another's and left behind");
    else fprintf(stderr, "from: %s, weights alone (%s)\n", opts.from, model_file_kind(r->source));
    note_quantized(r->source);
    if (counts_on() && !checkpoint && opts.from_tokens < 0)
        fprintf(stderr, "note: %s does not say how many tokens it has learned from; %s goes on from %s, %g a parameter; --from-tokens N says otherwise\n",
                opts.from, opts.schedule, text_count(count, guess), opts.ratio);
}

void read_source(struct run *r) {
    struct err err;
    if (!model_read_weights(r->model, r->source, &err) || (r->source_optimizer && !optimizer_read(r->optimizer, r->source, &err))) fail(1, &err);
    model_file_close(r->source);
    r->source = NULL;
}
