// train_draft.c: --draft-for: a small model that guesses what another one, its target, says next.
//
// The target writes texts (gen/samples.h) into OUT/samples.lehr, which grows by whole windows, so that a run that was ended goes
// on; what it wrote decides which part of its vocabulary the draft gets, and is what the draft learns from (learn/distil.h). From
// there on it is a run like any other: shape, schedule, checkpoints and report are those of train_setup.c and train_loop.c, and
// resuming is as exact. What is left behind besides is OUT/NAME.draft.gguf, with the target as OUT/NAME.gguf beside it, where ./run
// looks for a draft. The last thing learned, from the finished draft, is the head that says how likely its guesses hold
// (model/accept.h): it is computed anew from what is there, so a resumed run has nothing of it to remember.
#include "train.h"

#include "gen/samples.h"
#include "gen/spec.h"
#include "learn/accept.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert((int)SAMPLE_TOP == (int)SOFT_TOP, "what is written is what is learned");
// A token of SmolLM2-135M takes 9 ms of a core alone, 2.5 among 8, 1.8 among 16, 1.6 among 32 (Sapphire Rapids, November 2026, windows
// of 256; the caches of 32 texts are then what is read). An end costs what 16 have of a window.
enum { AT_ONCE = 16, DRAFT_SEQ = 256, ACCEPT_BLOCKS = 3, TOKENS_USUAL = 1000000, TOKENS_LEAST = 65536 };

struct apprentice {
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
    if (opts.exit_layer) refuse(2, "--exit-layer is for a model that guesses for itself, and a draft guesses for another: leave out one of them");
    if (opts.replay.count || opts.valid.count) refuse(2, "a draft learns from its target's own texts and is validated on them: leave out --replay and --valid");
    if (strcmp(opts.tokenizer, "bpe:4096") != 0) refuse(2, "--tokenizer: a draft has a part of its target's vocabulary; --draft-vocab says how much of it");
    if (!train_option_given("seq")) opts.seq = DRAFT_SEQ;
    if (!train_option_given("export-dtype")) opts.export_dtype = "q8_0";
    if (!train_option_given("dtype")) opts.dtype = "bf16"; // three times as fast where there are units for it; what is rounded is a guess
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
        if (stop_wanted) return TOKENS_LEAST / length; // which is not kept
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

static void write_texts(struct run *r, const struct model_file *f, const struct apprentice *d, const struct corpus *text, const char *path, int64_t *windows) {
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

static struct tokenizer *draft_tokenizer(const struct apprentice *d, const struct model_file *f) {
    struct err err;
    const int64_t n = tokenizer_vocab(d->target);
    struct tokenizer *all = n <= 2 * opts.draft_vocab ? tokenizer_of_model(f, NULL, &err) : NULL;
    if (all) return all;
    bool *keep = mem_array((size_t)n, sizeof *keep, "tokens to keep");
    distil_vocabulary(&d->samples, d->target, opts.draft_vocab, keep);
    struct tokenizer *t = tokenizer_part(d->target, keep, &err);
    if (!t) fail(1, &err);
    mem_free(keep);
    return t;
}

// What ./run will make of every token of the target.
static void make_words(struct apprentice *d, const struct tokenizer *draft) {
    struct err err;
    struct draft_words *w = &d->words;
    struct vocab_map *m = vocab_map_new(draft, d->target, 0, &err);
    if (!m) fail(1, &err);
    w->n = (int32_t)tokenizer_vocab(d->target);
    w->guess = mem_array((size_t)w->n, sizeof *w->guess, "map of vocabularies");
    w->at = mem_array((size_t)w->n + 1, sizeof *w->at, "map of vocabularies");
    ids_add(&w->read, 0); // an empty list would be the beginning of a text, which has BOS in front of it
    for (int32_t v = 0; v < w->n; v++) {
        const int32_t twin = m->to_draft[v];
        w->guess[v] = twin >= 0 && m->to_target[twin] == v ? twin : -1;
        vocab_map_read(m, draft, d->target, v, &w->read);
        w->at[v + 1] = w->read.count - 1;
    }
    w->read.count--;
    memmove(w->read.id, w->read.id + 1, w->read.count * sizeof *w->read.id);
    vocab_map_free(m);
}

static void print_vocabulary(const struct apprentice *d, const struct tokenizer *draft) {
    int64_t whole = 0, all = d->samples.windows * d->samples.head.length;
    for (int64_t w = 0; w < d->samples.windows; w++)
        for (int64_t i = 0; i < d->samples.head.length; i++) {
            const int32_t id = samples_id(&d->samples, w, i);
            whole += id < d->words.n && d->words.guess[id] >= 0;
        }
    fprintf(stderr, "vocabulary: %lld of the %lld tokens, which were %.2f%% of what was written\n", (long long)tokenizer_vocab(draft),
            (long long)tokenizer_vocab(d->target), 100 * (double)whole / (double)all);
}

void make_draft_data(struct run *r, const struct model_file *checkpoint) {
    struct err err;
    struct corpus text = {0};
    struct apprentice *d = r->draft = mem_alloc(sizeof *d, "draft");
    struct model_file *f = model_file_open(opts.draft_for, &err);
    if (!f || !config_read(&d->config, f, &err) || !(d->target = tokenizer_of_model(f, NULL, &err))) fail(1, &err);
    if (opts.data.count && !corpus_read(&text, opts.data.word, opts.data.count, &err)) fail(1, &err);
    print_notes(&text.notes);
    if (text.shards.count) refuse(2, "%s: texts of the target begin with pieces of text, not of tokens: give text", text.shards.word[0]);
    char *path = in_out("samples.lehr");
    int64_t windows = 0;
    write_texts(r, f, d, &text, path, &windows);
    if (!samples_open(&d->samples, path, windows, &err)) fail(1, &err);
    r->tokenizer = checkpoint ? tokenizer_of_model(checkpoint, NULL, &err) : draft_tokenizer(d, f);
    if (!r->tokenizer) fail(1, &err);
    make_words(d, r->tokenizer);
    distil_tokens(&d->samples, d->target, r->tokenizer, &d->words, opts.valid_share, &r->train, &r->valid);
    r->mixture = (struct mixture){1, {&r->train}, {1}};
    print_vocabulary(d, r->tokenizer);
    print_tokens("training", &r->train);
    print_tokens("validation", &r->valid);
    need_a_sequence("text of the target", &r->train);
    corpus_free(&text);
    mem_free(path);
    model_file_close(f);
}

// ---- shape --------------------------------------------------------------------------------------------------------

// A guess costs the draft's blocks and head, and is worth it while that is little of what a token of the target costs: the widest
// whose weights, which is what decoding reads, are so small a share. The head counts, which is most of it.
void draft_shape(const struct run *r) {
    enum { STEP = 64, WIDEST = 512 };
    static const double share = 0.03;
    if (*opts.size || opts.width || opts.layers) return;
    const double room = share * (double)config_params_active(&r->draft->config), V = (double)tokenizer_vocab(r->tokenizer);
    char count[32];
    opts.layers = 2, opts.width = STEP;
    for (int64_t C = STEP; C <= WIDEST; C += STEP) // 11 C^2 a block: queries to output 3, feed-forward 8
        if ((double)C * (V + 11.0 * (double)C * (double)opts.layers) <= room) opts.width = C;
    fprintf(stderr, "derived: --width %lld --layers %lld: the widest draft of at most %g%% of the target's %s parameters, and at most %d\n",
            (long long)opts.width, (long long)opts.layers, 100 * share, text_count(count, (double)config_params_active(&r->draft->config)), WIDEST);
}

// ---- how good it is -----------------------------------------------------------------------------------------------

static struct distil_score judge(struct model *m, const struct tokens *valid, int64_t tokens) {
    struct err err;
    struct distil_score score = {NAN, NAN, 0};
    struct session *s = session_new(m, &(struct session_options){.ctx = opts.seq, .all_logits = DISTIL_ROWS, .exact = true}, &err);
    if (!s || !distil_judge(valid, s, tokens, &score, &err)) fail(1, &err);
    session_free(s);
    return score;
}

// A quarter of the tokens of a validation: what is looked at is a mean of shares, which needs fewer than a loss.
struct distil_score draft_score(const struct run *r, int64_t tokens) { return judge(r->model, &r->valid, tokens / 4); }

// ---- what is left behind ------------------------------------------------------------------------------------------

// The target's name without its folder and ending.
static void target_name(struct text *name) {
    const char *slash = strrchr(opts.draft_for, '/'), *base = slash && slash[1] ? slash + 1 : opts.draft_for;
    text_str(name, base);
    while (name->len && name->data[name->len - 1] == '/') name->data[--name->len] = '\0';
    if (name->len > 5 && strcmp(name->data + name->len - 5, ".gguf") == 0) name->data[name->len -= 5] = '\0';
}

struct keys {
    const struct run *r;
    const char *name;
    double acceptance;
    const struct accept *accept; // NULL: not learned yet
};
static void write_keys(void *arg, struct gguf_out *o) {
    const struct keys *k = arg;
    tokenizer_write(k->r->tokenizer, o);
    gguf_out_text(o, "lehr.draft_for", k->name, strlen(k->name));
    gguf_out_f32(o, "lehr.draft_acceptance", (float)k->acceptance);
    if (k->accept) accept_write(k->accept, o);
}

static bool is_there(const char *path, const struct stat *what) {
    struct stat st;
    return stat(path, &st) == 0 && st.st_dev == what->st_dev && st.st_ino == what->st_ino;
}

// The target under its name beside the draft, without a second copy where that can be.
static void link_target(const char *name) {
    struct stat st;
    struct text to = {0};
    char *whole = realpath(opts.draft_for, NULL);
    text_fmt(&to, "%s/%s%s", opts.out, name, whole && stat(whole, &st) == 0 && S_ISDIR(st.st_mode) ? "" : ".gguf");
    bool there = whole && stat(whole, &st) == 0 && is_there(to.data, &st), ours = strcmp(name, "model") == 0; // model.gguf is the run's own, and in the draft
    if (whole && !there && ours) unlink(to.data);
    bool taken = !there && file_exists(to.data);
    if (whole && !there && !taken) there = link(whole, to.data) == 0 || symlink(whole, to.data) == 0;
    if (there) fprintf(stderr, "target: %s is %s; try  ./run -m %s\n", to.data, opts.draft_for, to.data);
    else if (taken) fprintf(stderr, "note: %s is another file and is left alone; ./run -m %s takes the draft by --draft\n", to.data, opts.draft_for);
    else fprintf(stderr, "note: %s could not be linked; copy %s there, so that ./run finds the draft beside it\n", to.data, opts.draft_for);
    free(whole);
    text_free(&to);
}

static struct accept *learn_acceptance(const struct run *r, struct model *m, struct accept_result *result) {
    enum { ROWS = 65536, HELD_OUT = 8192, WIDE = 256 };
    struct err err;
    struct accept_rows train, held_out;
    const double start = time_now();
    struct session *s = session_new(m, &(struct session_options){.ctx = opts.seq, .all_logits = DISTIL_ROWS, .exact = true, .hidden = true}, &err);
    const int64_t C = m->config.C, rows = C <= WIDE ? ROWS : ROWS * WIDE / C * WIDE / C; // 30 thousand places of 512 channels: 40 s of two cores
    accept_rows_open(&train, C, r->train.count < rows ? r->train.count : rows);
    accept_rows_open(&held_out, C, r->valid.count < HELD_OUT ? r->valid.count : HELD_OUT);
    if (!s || !accept_gather(&r->train, s, &train, &err) || !accept_gather(&r->valid, s, &held_out, &err)) fail(1, &err);
    struct accept *a = train.n && held_out.n ? accept_learn(&train, &held_out, ACCEPT_BLOCKS, result) : NULL;
    if (a)
        fprintf(stderr, "acceptance head: learned from %lld places in %.1f s; on %lld others it is %.4f nats off, the draft's own confidence %.4f, one chance for all %.4f\n",
                (long long)train.n, time_now() - start, (long long)held_out.n, result->head - result->floor, result->sure - result->floor, result->constant - result->floor);
    accept_rows_close(&train);
    accept_rows_close(&held_out);
    session_free(s);
    return a;
}

static void export_draft(const char *model, const char *path, struct keys *keys, struct text *notes) {
    struct err err;
    const struct export_options eo = {.tokenizer = write_keys, .arg = keys};
    struct model_file *f = model_file_open(model, &err);
    if (!f || !model_export_gguf(f, path, &eo, notes, &err)) fail(1, &err);
    model_file_close(f);
}

void write_draft(const struct run *r, const char *model) {
    struct err err;
    struct text name = {0}, path = {0}, notes = {0};
    target_name(&name);
    text_fmt(&path, "%s/%s.draft.gguf", opts.out, name.data);
    struct keys keys = {r, name.data, r->score.acceptance, NULL};
    export_draft(model, path.data, &keys, &notes);
    print_notes(&notes);
    struct model_file *f = model_file_open(path.data, &err);
    struct model *m = f ? model_load(f, r->backend, &err) : NULL;
    if (!m) fail(1, &err);
    const struct distil_score written = judge(m, &r->valid, 4 * opts.eval_tokens);
    struct accept_result result;
    struct accept *accept = learn_acceptance(r, m, &result);
    fprintf(stderr, "draft: %s, %.1f MB; of its guesses %.1f%% are accepted at temperature 1 (before it was rounded %.1f%%), %.1f%% when greedy\n", path.data,
            (double)model_file_bytes(f) * 1e-6, 100 * written.acceptance, 100 * r->score.acceptance, 100 * written.agreement);
    model_free(m);
    model_file_close(f);
    keys.accept = accept;
    if (accept) export_draft(model, path.data, &keys, NULL);
    accept_free(accept);
    link_target(name.data);
    text_free(&name);
    text_free(&path);
}
