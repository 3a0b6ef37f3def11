// run_spec.c: what ./run has of speculation: finding and loading a draft, and telling what came of it.
//
// Nothing that goes wrong with a draft ends the program or changes a byte of the text: it is said in one line, and the text goes on
// with what is left, n-grams or plain decoding.
#include "run.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct speculation {
    struct model_file *file;
    struct tokenizer *tokenizer;
    struct model *model;
    struct session *session;
    struct vocab_map *map;
    struct accept *accept; // of the draft; NULL: none
    struct drafter *drafters[3];
    int n;
    struct spec_options options;
    struct spec *spec;
    bool told;
};

enum { CHAIN_MOST = 15, TREE_NODES = 24 };
static const double LEAST_SHARED = 0.5; // of the smaller vocabulary: with fewer, the two were made of different texts

static const struct drafter_row *row_named(const char *name) {
    for (int i = 0; i < drafter_row_count; i++)
        if (!strcmp(drafter_rows[i].name, name)) return &drafter_rows[i];
    return NULL;
}

static bool is(const struct speculation_options *o, const char *name) { return !strcmp(o->name, name); }

bool speculation_check(const struct speculation_options *o, struct err *err) {
    if (!row_named(o->name)) return err_set(err, "--spec %s: expected auto, none, ngram, model, staged, tree or exit (see --list)", o->name);
    const struct verifier *v = verifier_find(o->accept);
    if (!v) return err_set(err, "--spec-accept %s: --list has the names", o->accept);
    if (v->choose && is(o, "ngram")) return err_set(err, "--spec-accept %s needs to know what a guess was drawn from, which n-grams do not: use coupled", o->accept);
    if (v->choose && is(o, "staged")) return err_set(err, "--spec-accept %s does not go with --spec staged: use coupled, or --spec model", o->accept);
    if (o->draft && (is(o, "none") || is(o, "ngram") || is(o, "exit"))) return err_set(err, "--spec %s asks no draft model: leave --draft out, or take auto, model, staged or tree", o->name);
    if (o->exit_layer && !is(o, "exit") && !is(o, "auto")) return err_set(err, "--exit-layer goes with --spec exit or auto: with --spec %s nobody leaves the model early", o->name);
    if (o->nodes && !is(o, "tree")) return err_set(err, "--spec-nodes goes with --spec tree; --draft-max limits a chain");
    if (o->least > o->most && o->most > 0) return err_set(err, "--draft-min %lld is more than --draft-max %lld", (long long)o->least, (long long)o->most);
    return true;
}

int64_t speculation_rows(const struct speculation_options *o) {
    if (is(o, "none")) return 0;
    if (is(o, "tree")) return 1 + (o->nodes ? o->nodes : TREE_NODES);
    return 1 + (o->most ? o->most : CHAIN_MOST);
}

// NAME.draft.gguf beside NAME.gguf; NULL when there is none. The caller frees.
static char *draft_beside(const char *model) {
    struct text path = {0};
    const char *dot = strrchr(model, '.');
    if (!dot || strcmp(dot, ".gguf")) return NULL;
    text_fmt(&path, "%.*s.draft.gguf", (int)(dot - model), model);
    if (file_exists(path.data)) return path.data;
    text_free(&path);
    return NULL;
}

static bool open_draft_session(struct app *a, struct speculation *s, const struct speculation_options *o, struct err *err) {
    struct text line = {0};
    int64_t rows = speculation_rows(o), ctx = session_capacity(a->session) + DRAFT_ROWS; // no longer than the target's
    if (is(o, "staged") && rows < STAGED_ROWS) rows = STAGED_ROWS;
    struct session_options so = {.ctx = o->ctx, .kv = DTYPE_F16, .all_logits = rows, .tree = rows, .hidden = s->accept != NULL};
    if (!so.ctx && ctx < s->model->config.ctx) so.ctx = ctx;
    if (!o->ctx && s->model->whole && config_rope_by_context(&s->model->config)) so.ctx = session_capacity(a->session); // else it would turn keys otherwise
    bool good = session_choose_context(s->model, &so, mem_available_bytes(), &line, err);
    text_free(&line);
    return good && (s->session = session_new(s->model, &so, err)) != NULL;
}

static bool load_draft(struct app *a, struct speculation *s, const struct speculation_options *o, const char *path, struct text *notes, struct err *err) {
    struct err damaged;
    if (!(s->file = model_file_open(path, err))) return false;
    if (!(s->tokenizer = tokenizer_of_model(s->file, NULL, err))) return false;
    if (!(s->map = vocab_map_new(s->tokenizer, a->tokenizer, LEAST_SHARED, err))) return false;
    if (!(s->model = model_load(s->file, a->backend, err))) return false;
    if (s->model->config.V < tokenizer_vocab(s->tokenizer)) return err_set(err, "%s: its tokenizer has more tokens than the model", path);
    bool chains = is(o, "auto") || is(o, "model"); // where the head is of use
    if (chains && !accept_read(s->file, s->model->config.C, &s->accept, &damaged))
        text_fmt(notes, "note: the acceptance head of %s is not used: %s\n", path, damaged.text);
    return open_draft_session(a, s, o, err) && session_settle(s->session, err);
}

// Where the model is left: by the option, else by what its file says; 0: nowhere.
static int64_t exit_of(const struct app *a, const struct speculation_options *o) {
    return o->exit_layer ? o->exit_layer : a->model->config.exit_layer;
}

// The first layers of the model as its own draft.
static bool load_exit(struct app *a, struct speculation *s, const struct speculation_options *o, struct err *err) {
    int64_t layers = exit_of(a, o), L = a->model->config.L;
    if (!layers) return err_set(err, "%s has not learned to be left early (./train --exit-layer): --exit-layer N names a layer of any model", o->model);
    if (layers >= L) return err_set(err, "--exit-layer %lld: expected fewer than the %lld layers of %s", (long long)layers, (long long)L, o->model);
    s->model = model_prefix(a->model, layers);
    s->map = vocab_map_own(a->tokenizer);
    return open_draft_session(a, s, o, err);
}

static void drop_draft(struct speculation *s) {
    session_free(s->session);
    model_free(s->model);
    vocab_map_free(s->map);
    tokenizer_free(s->tokenizer);
    accept_free(s->accept);
    if (s->file) model_file_close(s->file);
    s->session = NULL, s->model = NULL, s->map = NULL, s->tokenizer = NULL, s->accept = NULL, s->file = NULL;
}

static double cost_of(const struct app *a, const struct speculation *s) { // of a guess, in passes of the target
    return (double)config_params_active(&s->model->config) / (double)config_params_active(&a->model->config);
}

static void add_exit(struct app *a, struct speculation *s, const struct speculation_options *o, struct text *notes) {
    struct err err;
    char params[32];
    if (!load_exit(a, s, o, &err)) {
        text_fmt(notes, "note: no layers of the model guess, the text is made without: %s\n", err.text);
        drop_draft(s);
        return;
    }
    const struct model_config *c = &s->model->config;
    s->drafters[s->n++] = drafter_model(&(struct draft_model){.session = s->session, .tokenizer = a->tokenizer, .target_tokenizer = a->tokenizer,
                                                              .map = s->map, .name = "exit", .cost = cost_of(a, s)});
    text_fmt(notes, "draft: the first %lld of %lld layers of %s, %s parameters\n", (long long)c->L, (long long)a->model->config.L, o->model,
             text_count(params, (double)config_params(c)));
}

static void add_drafters(struct app *a, struct speculation *s, const struct speculation_options *o, const char *draft, struct text *notes) {
    struct err err;
    if (is(o, "auto") && !verifier_find(o->accept)->choose) s->drafters[s->n++] = drafter_ngram();
    if (is(o, "ngram")) s->drafters[s->n++] = drafter_ngram();
    if (is(o, "ngram")) return;
    if (is(o, "exit") || (is(o, "auto") && !draft && exit_of(a, o))) {
        add_exit(a, s, o, notes);
        return;
    }
    if (is(o, "auto") && !draft) return;
    if (o->exit_layer) text_fmt(notes, "note: --exit-layer is not used, as there is the draft %s: --spec exit prefers the model's own layers\n", draft);
    if (!draft) {
        text_fmt(notes, "note: --spec %s needs a draft model: --draft FILE, or NAME.draft.gguf beside NAME.gguf; the text is made without\n", o->name);
        return;
    }
    if (!load_draft(a, s, o, draft, notes, &err)) {
        text_fmt(notes, "note: the draft %s is not used, the text is made without: %s\n", draft, err.text);
        drop_draft(s);
        return;
    }
    struct draft_model m = {.session = s->session, .tokenizer = s->tokenizer, .target_tokenizer = a->tokenizer, .map = s->map, .staged = is(o, "staged"), .accept = s->accept,
                            .cost = cost_of(a, s)};
    s->drafters[s->n++] = drafter_model(&m);
    char params[32];
    text_fmt(notes, "draft: %s, %s, %s parameters, %.1f%% of the vocabulary%s\n", draft, s->model->config.family->name,
             text_count(params, (double)config_params(&s->model->config)), 100 * s->map->share, s->accept ? ", an acceptance head" : "");
}

struct speculation *speculation_open(struct app *a, const struct speculation_options *o, struct text *notes) {
    int64_t rows = speculation_rows(o);
    if (rows == 0) return NULL;
    struct speculation *s = mem_alloc(sizeof *s, "speculation");
    char *beside = o->draft ? NULL : draft_beside(o->model);
    const struct verifier *verifier = verifier_find(o->accept);
    add_drafters(a, s, o, o->draft ? o->draft : beside, notes);
    mem_free(beside);
    if (!s->n) {
        speculation_close(s);
        return NULL;
    }
    struct spec_options so = {.session = a->session, .tokenizer = a->tokenizer, .n_drafters = s->n, .verifier = verifier, .rows = (int32_t)rows,
                              .most = (int32_t)(o->most ? o->most : is(o, "tree") ? 8 : CHAIN_MOST), .least = (int32_t)o->least,
                              .wide = is(o, "tree") ? 8 : 1, .p_min = o->p_min, .fixed = !o->adapt, .seed = o->seed};
    if (so.most > so.rows - 1) so.most = so.rows - 1;
    memcpy(so.drafters, s->drafters, sizeof so.drafters);
    s->options = so;
    s->spec = spec_new(&so);
    return s;
}

void speculation_close(struct speculation *s) {
    if (!s) return;
    spec_free(s->spec);
    for (int i = 0; i < s->n; i++) s->drafters[i]->free(s->drafters[i]);
    drop_draft(s);
    mem_free(s);
}

void speculation_anew(struct speculation *s, uint64_t seed) {
    spec_free(s->spec);
    s->options.seed = seed;
    s->spec = spec_new(&s->options);
}

struct spec *speculation_spec(struct speculation *s) { return s ? s->spec : NULL; }

void speculation_tell(struct speculation *s) {
    if (!s) return;
    struct text line = {0};
    spec_tell(s->spec, &line);
    if (line.len) fprintf(stderr, "%s\n", line.data);
    if (spec_trouble(s->spec) && !s->told) fprintf(stderr, "note: %s\n", spec_trouble(s->spec));
    s->told = spec_trouble(s->spec) != NULL;
    text_free(&line);
}

void speculation_json(struct speculation *s, struct json_out *j) {
    if (!s) return;
    struct spec_stats t = spec_stats(s->spec);
    double plain, gain = spec_gain(&t, &plain);
    json_out_object(j, "speculation");
    json_out_number(j, "speedup", gain);
    json_out_number(j, "plain_tok_per_s", plain);
    json_out_integer(j, "tokens", t.tokens);
    json_out_integer(j, "passes", t.passes);
    json_out_integer(j, "plain_passes", t.plain_passes);
    json_out_integer(j, "guesses", t.guesses);
    json_out_integer(j, "held", t.held);
    json_out_array(j, "held_by_place");
    for (int i = 0; i < SPEC_PLACES && t.at[i] > 0; i++) json_out_number(j, NULL, (double)t.held_at[i] / (double)t.at[i]);
    json_out_close(j, ']');
    json_out_number(j, "draft_s", t.draft_s);
    json_out_number(j, "judge_s", t.judge_s);
    json_out_close(j, '}');
}

// ---- without and with ---------------------------------------------------------------------------------------------

struct capture {
    struct text text;
    struct ids ids;
};

static bool capture(void *arg, const struct token_event *e) {
    struct capture *c = arg;
    text_add(&c->text, e->bytes, e->n);
    if (e->id >= 0) ids_add(&c->ids, e->id);
    return true;
}

static void capture_free(struct capture *c) {
    text_free(&c->text);
    ids_free(&c->ids);
}

// A text from the beginning, by spec or plainly.
static bool make_text(struct app *a, const struct ids *ids, const struct sampler_options *so, const struct generate_options *g, struct spec *spec,
                      struct capture *to, struct generate_stats *stats, struct err *err) {
    struct generate_options with = *g;
    struct sampler *sampler = sampler_new(so, tokenizer_vocab(a->tokenizer));
    with.spec = spec;
    session_rewind(a->session, 0);
    bool good = generate(a->session, a->tokenizer, sampler, ids->id, ids->count, &with, capture, to, stats, err);
    sampler_free(sampler);
    return good;
}

int speculation_compare(struct app *a, const struct ids *ids, const struct sampler_options *sampler, const struct generate_options *g, struct err *err) {
    struct capture plain = {{0}, {0}}, guessed = {{0}, {0}};
    struct generate_stats first, second;
    text_str(&plain.text, ""), text_str(&guessed.text, "");
    bool good = make_text(a, ids, sampler, g, NULL, &plain, &first, err) &&
                make_text(a, ids, sampler, g, speculation_spec(a->guesses), &guessed, &second, err);
    size_t at = 0;
    while (at < plain.ids.count && at < guessed.ids.count && plain.ids.id[at] == guessed.ids.id[at]) at++;
    bool same = at == plain.ids.count && at == guessed.ids.count && plain.text.len == guessed.text.len &&
                !memcmp(plain.text.data, guessed.text.data, plain.text.len);
    if (good && same)
        printf("the same %zu bytes, %zu tokens, without guesses (%.1f/s) and with (%.1f/s)\n", plain.text.len, plain.ids.count,
               (double)first.new_tokens / first.new_s, (double)second.new_tokens / second.new_s);
    if (good && !same) printf("DIFFERENT from token %zu on: %zu tokens without guesses, %zu with\n", at, plain.ids.count, guessed.ids.count);
    if (good) speculation_tell(a->guesses);
    capture_free(&plain);
    capture_free(&guessed);
    return !good ? 1 : same ? 0 : 3;
}

// ---- texts of a kind ----------------------------------------------------------------------------------------------

struct kind {
    const char *name;
    double *plain, *with, *ratio; // tokens a second of each prompt, medians; with / plain
    size_t n;
    int64_t guesses, held, passes, tokens;
    bool differs;
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n) {
    if (!n) return NAN;
    qsort(x, n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

// Two runs that share the machine by turns of a few tokens, each a thread that waits while the other has its turn. What else the
// machine does changes within tenths of a second: of texts made one behind the other it would fall on one of the two. A turn is
// the same tokens in each repeat, so each has the median of its times, and a stall of some milliseconds falls on nobody.
struct turns {
    pthread_mutex_t lock;
    pthread_cond_t change;
    int whose;
    struct turn_of {
        struct turns *all;
        int me;
        bool over, good;
        double since, *took; // the turn under way; of each turn from the first token on
        size_t turns;
        struct capture text;
        struct app app; // the run's own session
        const struct ids *ids;
        const struct texts_options *o;
        struct generate_options generate;
        struct generate_stats stats;
        struct err err;
    } run[2];
};
enum { TURN = 16 }; // tokens

static void await_turn(struct turn_of *t) { // the lock is held
    while (t->all->whose != t->me) pthread_cond_wait(&t->all->change, &t->all->lock);
    t->since = time_now();
}

static void pass_turn(struct turn_of *t) { // the lock is held
    t->took[t->turns] = time_now() - t->since;
    if (!t->all->run[!t->me].over) t->all->whose = !t->me;
    pthread_cond_broadcast(&t->all->change);
}

static bool count_token(void *arg, const struct token_event *e) {
    struct turn_of *t = arg;
    bool going = capture(&t->text, e);
    if (e->id < 0 || t->text.ids.count % TURN != 1) return going; // the first turn is the prompt's, which is not what is timed
    pthread_mutex_lock(&t->all->lock);
    pass_turn(t);
    t->turns++;
    await_turn(t);
    pthread_mutex_unlock(&t->all->lock);
    return going;
}

static void *take_turns(void *arg) {
    struct turn_of *t = arg;
    struct sampler *sampler = sampler_new(t->o->sampler, tokenizer_vocab(t->app.tokenizer));
    pthread_mutex_lock(&t->all->lock);
    await_turn(t);
    pthread_mutex_unlock(&t->all->lock);
    session_rewind(t->app.session, 0);
    t->good = generate(t->app.session, t->app.tokenizer, sampler, t->ids->id, t->ids->count, &t->generate, count_token, t, &t->stats, &t->err);
    pthread_mutex_lock(&t->all->lock);
    t->over = true;
    pass_turn(t);
    pthread_mutex_unlock(&t->all->lock);
    sampler_free(sampler);
    return NULL;
}

// Tokens a second behind the first token: of each turn the median of the repeats.
static double speed_of(const double *took, int64_t repeats, size_t turns, size_t tokens) {
    double *one = mem_array((size_t)repeats, sizeof *one, "times of a turn"), all = 0;
    for (size_t i = 1; i < turns; i++) {
        for (int64_t r = 0; r < repeats; r++) one[r] = took[(size_t)r * turns + i];
        all += median(one, (size_t)repeats);
    }
    mem_free(one);
    return tokens > 1 ? (double)(tokens - 1) / all : NAN;
}

// One prompt, plainly and with guesses. The two threads change places with each repeat: what is made in the new one was
// three hundredths slower, with the same program on both sides.
static bool time_prompt(struct app *a, const struct texts_options *o, const struct ids *ids, struct kind *k, struct err *err) {
    int64_t repeats = o->repeats > 1 ? o->repeats + o->repeats % 2 : 1;
    size_t turns = (size_t)(o->n - 1) / TURN + 2, tokens = 0; // one before the first token, one behind each that ends a turn
    double *took[2] = {mem_array((size_t)repeats * turns, sizeof(double), "times"), mem_array((size_t)repeats * turns, sizeof(double), "times")};
    bool good = true;
    for (int64_t r = 0; good && r < repeats; r++) {
        struct turns t = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER, .whose = (int)(r % 2)};
        pthread_t thread;
        if (a->guesses) speculation_anew(a->guesses, (uint64_t)o->sampler->seed);
        for (int i = 0; i < 2; i++) {
            t.run[i] = (struct turn_of){.all = &t, .me = i, .app = *a, .ids = ids, .o = o, .generate = *o->generate, .took = took[i] + (size_t)r * turns};
            t.run[i].generate.n = o->n;
        }
        t.run[0].app.session = o->plain;
        t.run[1].generate.spec = speculation_spec(a->guesses);
        good = !pthread_create(&thread, NULL, take_turns, &t.run[r % 2]) || err_set(err, "no thread to take turns with");
        if (!good) break;
        take_turns(&t.run[1 - r % 2]);
        pthread_join(thread, NULL);
        for (int i = 0; i < 2; i++)
            if (good && !t.run[i].good) *err = t.run[i].err, good = false;
        const struct ids *plain = &t.run[0].text.ids, *guessed = &t.run[1].text.ids;
        tokens = plain->count; // fewer than were asked for where the context ends
        k->differs = k->differs || plain->count != guessed->count || (plain->count && memcmp(plain->id, guessed->id, plain->count * sizeof *plain->id));
        for (int i = 0; i < 2; i++) capture_free(&t.run[i].text);
        pthread_mutex_destroy(&t.lock);
        pthread_cond_destroy(&t.change);
    }
    struct spec_stats t = a->guesses ? spec_stats(a->guesses->spec) : (struct spec_stats){0};
    k->guesses += t.guesses, k->held += t.held, k->passes += t.passes, k->tokens += t.tokens;
    k->plain[k->n] = good ? speed_of(took[0], repeats, turns, tokens) : 0;
    k->with[k->n] = good ? speed_of(took[1], repeats, turns, tokens) : 0;
    k->ratio[k->n] = k->with[k->n] / k->plain[k->n];
    k->n++;
    mem_free(took[0]);
    mem_free(took[1]);
    return good;
}

static void tell_prompt(const struct texts_options *o, const struct kind *k) {
    if (!o->json) return;
    struct text line = {0};
    struct json_out j;
    json_out_open(&j, &line);
    json_out_object(&j, NULL);
    json_out_string(&j, "kind", k->name, strlen(k->name));
    json_out_integer(&j, "prompt", (int64_t)k->n);
    json_out_number(&j, "plain_tok_per_s", k->plain[k->n - 1]);
    json_out_number(&j, "tok_per_s", k->with[k->n - 1]);
    json_out_number(&j, "ratio", k->ratio[k->n - 1]);
    json_out_close(&j, '}');
    puts(line.data);
    fflush(stdout);
    text_free(&line);
}

static void tell_kind(const struct texts_options *o, struct kind *k) {
    double middle = median(k->ratio, k->n), plain = median(k->plain, k->n), with = median(k->with, k->n), pass = k->passes ? (double)k->tokens / (double)k->passes : 1;
    double least = k->ratio[0], most = k->ratio[k->n - 1]; // sorted by now
    if (!o->json) {
        printf("%s: %zu prompts, plain %.1f tokens/s, with guesses %.1f, %.2fx (%.2f..%.2f), %.2f tokens a pass, %lld of %lld guesses held%s\n", k->name, k->n,
               plain, with, middle, least, most, pass, (long long)k->held, (long long)k->guesses, k->differs ? ", and the texts DIFFER" : "");
        fflush(stdout);
        return;
    }
    struct text line = {0};
    struct json_out j;
    json_out_open(&j, &line);
    json_out_object(&j, NULL);
    json_out_string(&j, "kind", k->name, strlen(k->name));
    json_out_integer(&j, "prompts", (int64_t)k->n);
    const struct { const char *name; double x; } numbers[] = {{"plain_tok_per_s", plain}, {"tok_per_s", with}, {"ratio", middle}, {"least", least},
                                                              {"most", most}, {"tokens_a_pass", pass}};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) json_out_number(&j, numbers[i].name, numbers[i].x);
    json_out_integer(&j, "guesses", k->guesses);
    json_out_integer(&j, "held", k->held);
    json_out_bool(&j, "differs", k->differs);
    json_out_close(&j, '}');
    puts(line.data);
    fflush(stdout);
    text_free(&line);
}

// The prompts of a file, one after the other, each without its last newline.
static bool time_kind(struct app *a, const struct texts_options *o, const char *path, const char *name, bool *differs, struct err *err) {
    struct text file = {0};
    if (!file_read_all(path, (size_t)1 << 26, &file, err)) return false;
    size_t most = file.len / 4 + 1; // a divider takes four bytes
    struct kind k = {.name = name, .plain = mem_array(most, sizeof *k.plain, "speeds"), .with = mem_array(most, sizeof *k.with, "speeds"),
                     .ratio = mem_array(most, sizeof *k.ratio, "speeds")};
    bool good = true;
    for (char *at = file.data; good && at && *at && (!o->most || (int64_t)k.n < o->most);) {
        char *end = strstr(at, "\n%%\n");
        size_t n = end ? (size_t)(end - at) : strlen(at);
        while (n && at[n - 1] == '\n') n--;
        struct ids ids = {0};
        if (n) good = o->encode(a, at, n, &ids, err) && time_prompt(a, o, &ids, &k, err);
        if (n && good) tell_prompt(o, &k);
        ids_free(&ids);
        at = end ? end + 4 : NULL;
    }
    if (good && k.n) tell_kind(o, &k);
    *differs = *differs || k.differs;
    mem_free(k.plain);
    mem_free(k.with);
    mem_free(k.ratio);
    text_free(&file);
    return good;
}

int bench_texts(struct app *a, const struct texts_options *o, struct err *err) {
    bool differs = false, good = true;
    struct file_list list;
    if (!file_list_open(&list, o->path, NULL)) { // no folder
        good = time_kind(a, o, o->path, o->path, &differs, err);
        return !good ? 1 : differs ? 3 : 0;
    }
    for (size_t i = 0; good && i < list.count; i++) {
        size_t n = strlen(list.names[i]);
        struct text path = {0};
        if (n < 4 || strcmp(list.names[i] + n - 4, ".txt")) continue;
        text_fmt(&path, "%s/%s", o->path, list.names[i]);
        good = time_kind(a, o, path.data, list.names[i], &differs, err);
        text_free(&path);
    }
    file_list_free(&list);
    return !good ? 1 : differs ? 3 : 0;
}
