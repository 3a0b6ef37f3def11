// run_spec.c: what ./run has of speculation: finding and loading a draft, and telling what came of it.
//
// Nothing that goes wrong with a draft ends the program or changes a byte of the text: it is said in one line, and the text goes on
// with what is left, n-grams or plain decoding.
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct speculation {
    struct model_file *file;
    struct tokenizer *tokenizer;
    struct model *model;
    struct session *session;
    struct vocab_map *map;
    struct drafter *drafters[3];
    int n;
    struct spec *spec;
    bool told;
};

enum { CHAIN_MOST = 15, TREE_NODES = 24 };
static const double LEAST_SHARED = 0.3; // of the target's tokens: with fewer, most places cannot be guessed at all

static const struct drafter_row *row_named(const char *name) {
    for (int i = 0; i < drafter_row_count; i++)
        if (!strcmp(drafter_rows[i].name, name)) return &drafter_rows[i];
    return NULL;
}

static bool is(const struct speculation_options *o, const char *name) { return !strcmp(o->name, name); }

bool speculation_check(const struct speculation_options *o, struct err *err) {
    if (!row_named(o->name)) return err_set(err, "--spec %s: expected auto, none, ngram, model, staged or tree (see --list)", o->name);
    const struct verifier *v = verifier_find(o->accept);
    if (!v) return err_set(err, "--spec-accept %s: --list has the names", o->accept);
    if (v->choose && is(o, "ngram")) return err_set(err, "--spec-accept %s needs to know what a guess was drawn from, which n-grams do not: use coupled", o->accept);
    if (v->choose && is(o, "staged")) return err_set(err, "--spec-accept %s does not go with --spec staged: use coupled, or --spec model", o->accept);
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

static bool load_draft(struct app *a, struct speculation *s, const struct speculation_options *o, const char *path, int64_t rows, struct err *err) {
    struct text line = {0};
    struct session_options so = {.ctx = o->ctx, .kv = DTYPE_F16};
    if (is(o, "staged") && rows < STAGED_ROWS) rows = STAGED_ROWS;
    so.all_logits = so.tree = rows;
    if (!(s->file = model_file_open(path, err))) return false;
    if (!(s->tokenizer = tokenizer_of_model(s->file, NULL, err))) return false;
    if (!(s->map = vocab_map_new(s->tokenizer, a->tokenizer, LEAST_SHARED, err))) return false;
    if (!(s->model = model_load(s->file, a->backend, err))) return false;
    if (s->model->config.V < tokenizer_vocab(s->tokenizer)) return err_set(err, "%s: its tokenizer has more tokens than the model", path);
    int64_t ctx = session_capacity(a->session) + DRAFT_ROWS; // no longer than the target's
    if (!so.ctx && ctx < s->model->config.ctx) so.ctx = ctx;
    bool good = session_choose_context(s->model, &so, mem_available_bytes(), &line, err);
    text_free(&line);
    return good && (s->session = session_new(s->model, &so, err)) != NULL;
}

static void drop_draft(struct speculation *s) {
    session_free(s->session);
    model_free(s->model);
    vocab_map_free(s->map);
    tokenizer_free(s->tokenizer);
    if (s->file) model_file_close(s->file);
    s->session = NULL, s->model = NULL, s->map = NULL, s->tokenizer = NULL, s->file = NULL;
}

static void add_drafters(struct app *a, struct speculation *s, const struct speculation_options *o, const char *draft, struct text *notes) {
    struct err err;
    if (is(o, "auto") && !verifier_find(o->accept)->choose) s->drafters[s->n++] = drafter_ngram();
    if (is(o, "ngram")) s->drafters[s->n++] = drafter_ngram();
    if (is(o, "ngram") || (is(o, "auto") && !draft)) return;
    if (!draft) {
        text_fmt(notes, "note: --spec %s needs a draft model: --draft FILE, or NAME.draft.gguf beside NAME.gguf; the text is made without\n", o->name);
        return;
    }
    if (!load_draft(a, s, o, draft, speculation_rows(o), &err)) {
        text_fmt(notes, "note: the draft %s is not used, the text is made without: %s\n", draft, err.text);
        drop_draft(s);
        return;
    }
    struct draft_model m = {.session = s->session, .tokenizer = s->tokenizer, .target_tokenizer = a->tokenizer, .map = s->map, .staged = is(o, "staged"),
                            .cost = (double)config_params_active(&s->model->config) / (double)config_params_active(&a->model->config)};
    s->drafters[s->n++] = drafter_model(&m);
    char params[32];
    text_fmt(notes, "draft: %s, %s, %s parameters, %.1f%% of the vocabulary\n", draft, s->model->config.family->name,
             text_count(params, (double)config_params(&s->model->config)), 100 * s->map->share);
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
