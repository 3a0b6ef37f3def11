// train_draft.c: --draft-for: a small model that guesses what another one, its target, says next.
//
// The target writes texts (gen/samples.h) into OUT/samples.lehr, which grows by whole windows, so that a run that was ended goes
// on; what it wrote decides which part of its vocabulary the draft gets, and is what the draft learns from (learn/distil.h). From
// there on it is a run like any other: shape, schedule, checkpoints and report are those of train_setup.c and train_loop.c, and
// resuming is as exact. What is left behind besides is OUT/NAME.draft.gguf, with the target as OUT/NAME.gguf beside it, where ./run
// looks for a draft.
#include "train.h"

#include "gen/samples.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert((int)SAMPLE_TOP == (int)SOFT_TOP, "what is written is what is learned");
enum { AT_ONCE = 16, DRAFT_SEQ = 256, TOKENS_USUAL = 1000000, TOKENS_LEAST = 65536 };

struct draft {
    struct model_config config; // of the target
    struct tokenizer *target;
    struct samples samples;
    struct draft_words words;
};

// ---- options ------------------------------------------------------------------------------------------------------

void draft_options(void) {
    if (!*opts.draft_for) return;
    if (*opts.from) refuse(2, "--draft-for makes a model of its own and --from goes on with another: give one of them");
    if (opts.tune || opts.coord_check) refuse(2, "--tune and --coord-check are for texts: leave out --draft-for");
    if (opts.replay.count || opts.valid.count) refuse(2, "a draft learns from its target's own texts and is validated on them: leave out --replay and --valid");
    if (train_option_given("tokenizer")) refuse(2, "--tokenizer: a draft has a part of its target's vocabulary; --draft-vocab says how much of it");
    if (!train_option_given("seq")) opts.seq = DRAFT_SEQ;
}

// ---- samples ------------------------------------------------------------------------------------------------------

struct writing {
    struct samples_out *out;
    struct progress progress;
    double start;
    int64_t before, tokens, goal; // tokens: there at the start, now, wanted
};

static bool take_sample(void *arg, const struct sample *s) {
    struct writing *w = arg;
    if (s) {
        samples_add(w->out, s->ids, s->top, s->p);
        return true;
    }
    char now[32], all[32], pace[32], left[32];
    w->tokens += AT_ONCE;
    const double per_s = (double)(w->tokens - w->before) / (time_now() - w->start);
    progress_line(&w->progress, false, "samples: %s of %s tokens | %s tok/s | eta %s", text_count(now, (double)w->tokens), text_count(all, (double)w->goal),
                  text_count(pace, per_s), text_time(left, (double)(w->goal - w->tokens) / per_s));
    return !stop_wanted;
}

// Who writes and from what: other bytes of it, other samples.
static uint64_t source_of(const struct model_file *f, const struct tokenizer *t, const struct corpus *text) {
    enum { LOOK = 64 }; // bytes of a tensor
    uint64_t hash = tokenizer_hash(t);
    struct span chat = {"", 0};
    for (size_t i = 0, n = model_file_tensor_count(f); i < n; i++) {
        const struct file_tensor *x = model_file_tensor_at(f, i);
        hash = hash_bytes(hash ^ x->bytes, x->data, x->bytes < LOOK ? x->bytes : LOOK);
    }
    if (!meta_text(f, "tokenizer.chat_template", false, &chat, NULL)) chat.n = 0;
    hash = hash_bytes(hash, chat.p, chat.n);
    return text->n_docs ? hash_bytes(hash, text->bytes.data, text->bytes.len) : hash;
}

static void sample(const struct sampling *what, int64_t from, int64_t to) {
    struct err err;
    struct sampling s = *what;
    s.first = from, s.count = to - from;
    if (s.count > 0 && !sample_windows(&s, &err)) fail(1, &err);
}

// Windows in all: as was said, or as the file says, or as many as --time has room for, by the pace of a first round.
static int64_t resolve_goal(const struct sampling *s, struct writing *w, struct samples_head *head, int64_t there) {
    char count[32], pace[32];
    const int64_t length = head->length;
    int64_t tokens = opts.draft_tokens;
    if (!tokens && head->goal) return head->goal;
    if (!tokens && opts.time > 0) {
        w->goal = TOKENS_LEAST;
        sample(s, there, there + AT_ONCE);
        const double per_s = (double)(AT_ONCE * length) / (time_now() - w->start);
        tokens = (int64_t)fmax(TOKENS_LEAST, per_s * opts.time);
        fprintf(stderr, "derived: --draft-tokens %s: as many as %s writes in --time, %s tokens/s\n", text_count(count, (double)tokens), opts.draft_for,
                text_count(pace, per_s));
    } else if (!tokens) {
        tokens = TOKENS_USUAL;
        fprintf(stderr, "derived: --draft-tokens %s: a convention; more is better, --time sets it by the clock\n", text_count(count, (double)tokens));
    }
    const int64_t goal = (tokens + length - 1) / length;
    samples_goal(w->out, goal);
    return goal;
}

static void write_texts(struct run *r, const struct model_file *f, const struct draft *d, const struct corpus *text, const char *path, int64_t *windows) {
    struct err err;
    struct model *m = NULL;
    struct chat_template *chat = chat_template_from_model(f, &err);
    struct samples_head head = {.source = source_of(f, d->target, text), .seed = (uint64_t)opts.seed, .vocab = (int32_t)d->config.V, .length = (int32_t)opts.seq};
    int64_t there;
    struct writing w = {.out = samples_append(path, &head, &there, &err)};
    if (!w.out) fail(1, &err);
    const int64_t wanted = opts.draft_tokens ? (opts.draft_tokens + opts.seq - 1) / opts.seq : head.goal;
    if (!wanted || there < wanted) {
        if (!(m = model_load(f, r->backend, &err))) fail(1, &err);
        fprintf(stderr, "samples: %s writes %d texts at once in windows of %lld tokens, %s, into %s\n", opts.draft_for, AT_ONCE, (long long)opts.seq,
                chat ? "every second one a chat" : "no chats, as it has no template", path);
        const struct sampling s = {.model = m, .tokenizer = d->target, .chat = chat, .text = text->bytes.data, .ends = text->doc_end, .n_ends = text->n_docs,
                                   .length = opts.seq, .at_once = AT_ONCE, .seed = (uint64_t)opts.seed, .take = take_sample, .arg = &w};
        w.before = w.tokens = there * opts.seq;
        w.start = time_now();
        progress_open(&w.progress, 5);
        *windows = resolve_goal(&s, &w, &head, there);
        there = w.tokens / opts.seq;
        w.goal = *windows * opts.seq;
        if (!stop_wanted) sample(&s, there, *windows);
        progress_close(&w.progress);
    } else {
        *windows = wanted;
    }
    model_free(m);
    chat_template_free(chat);
    if (!samples_done(w.out, &err)) fail(1, &err);
    if (!stop_wanted) return;
    fputs("interrupted; the same command goes on from here\n", stderr);
    _exit(130);
}

// ---- vocabulary ---------------------------------------------------------------------------------------------------

static struct tokenizer *draft_tokenizer(const struct draft *d) {
    struct err err;
    const int64_t n = tokenizer_vocab(d->target);
    if (n <= 2 * opts.draft_vocab) return tokenizer_of_target();
    bool *keep = mem_array((size_t)n, sizeof *keep, "tokens to keep");
    distil_vocabulary(&d->samples, d->target, opts.draft_vocab, keep);
    struct tokenizer *t = tokenizer_part(d->target, keep, &err);
    if (!t) fail(1, &err);
    mem_free(keep);
    return t;
}

// What stands for bytes that no token of the draft has: its byte tokens.
static void spell(const struct tokenizer *draft, struct span bytes, struct ids *to) {
    for (size_t i = 0; i < bytes.n; i++) {
        for (int32_t v = 0; v < tokenizer_vocab(draft); v++) {
            const struct span s = tokenizer_piece(draft, v);
            if (s.n != 1 || *s.p != bytes.p[i]) continue;
            ids_add(to, v);
            break;
        }
    }
}

// A part keeps the order, so that one walk over both finds every token.
static void make_words(struct draft *d, const struct tokenizer *draft) {
    const int64_t n = tokenizer_vocab(d->target), m = tokenizer_vocab(draft);
    struct draft_words *w = &d->words;
    w->n = (int32_t)n;
    w->guess = mem_array((size_t)n, sizeof *w->guess, "map of vocabularies");
    w->at = mem_array((size_t)n + 1, sizeof *w->at, "map of vocabularies");
    for (int64_t v = 0, k = 0; v < n; v++) {
        const struct span a = tokenizer_token(d->target, (int32_t)v), b = tokenizer_token(draft, (int32_t)k);
        const bool same = k < m && a.n == b.n && !memcmp(a.p, b.p, a.n) && tokenizer_type(d->target, (int32_t)v) == tokenizer_type(draft, (int32_t)k);
        w->guess[v] = same ? (int32_t)k++ : -1;
        if (same) ids_add(&w->read, w->guess[v]);
        else if (tokenizer_type(d->target, (int32_t)v) == TOKEN_NORMAL) tokenizer_encode(draft, tokenizer_piece(d->target, (int32_t)v).p, tokenizer_piece(d->target, (int32_t)v).n, 0, &w->read);
        w->at[v + 1] = w->read.count;
    }
}

void make_draft_data(struct run *r, const struct model_file *checkpoint) {
    struct err err;
    struct corpus text = {0};
    struct draft *d = r->draft = mem_alloc(sizeof *d, "draft");
    struct model_file *f = model_file_open(opts.draft_for, &err);
    if (!f || !config_read(&d->config, f, &err) || !(d->target = tokenizer_of_model(f, NULL, &err))) fail(1, &err);
    if (opts.data.count && !corpus_read(&text, opts.data.word, opts.data.count, &err)) fail(1, &err);
    print_notes(&text.notes);
    if (text.shards.count) refuse(2, "%s: texts of the target begin with pieces of text, not of tokens: give text", text.shards.word[0]);
    char *path = in_out("samples.lehr");
    int64_t windows = 0;
    write_texts(r, f, d, &text, path, &windows);
    if (!samples_open(&d->samples, path, windows, &err)) fail(1, &err);
    r->tokenizer = checkpoint ? tokenizer_of_model(checkpoint, NULL, &err) : draft_tokenizer(d);
    if (!r->tokenizer) fail(1, &err);
    make_words(d, r->tokenizer);
    distil_tokens(&d->samples, d->target, r->tokenizer, &d->words, opts.valid_share, &r->train, &r->valid);
    r->mixture = (struct mixture){1, {&r->train}, {1}};
    print_draft_data(r);
    corpus_free(&text);
    mem_free(path);
    model_file_close(f);
}
