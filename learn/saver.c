// saver: checkpoints written beside the steps.
//
// What a step would change is copied first, by all threads at the speed of memory: weights, the optimizer's state and the
// numbers of the run. The copy is dressed as a model and an optimizer, so that the thread beside the steps calls the same
// checkpoint_save as everybody. A process that forks would get a copy for nothing, and then pay for it page by page in the
// next update, activations and gradients included; and no device survives a fork.
//
// What the copy costs is 24 bytes of memory traffic a parameter (AdamW) against about 6 operations a parameter and token of
// a step, so its share of a step depends on the tokens of a batch alone.
#include "learn/learn.h"

#include <string.h>

struct saver {
    struct model *model;         // the copy
    struct optimizer *optimizer; // the same
    const struct tokenizer *tokenizer;
    struct run_state state;      // with options of its own
    struct aside *aside;
    int keep;
    bool pending; // started, and not told yet
    double start;
    struct text folder;
    struct saved saved;
};

size_t saver_bytes(const struct model_config *c, size_t optimizer_state_bytes) {
    return (size_t)config_params(c) * sizeof(float) + optimizer_state_bytes;
}

struct saver *saver_new(const struct model *m, const struct optimizer *o, struct err *err) {
    struct saver *s = mem_alloc(sizeof *s, "saver");
    s->model = model_shadow(m, err);
    s->optimizer = s->model ? optimizer_shadow(o, s->model, err) : NULL;
    if (!s->optimizer) {
        saver_free(s);
        return NULL;
    }
    s->aside = aside_new();
    model_shadow_take(s->model, m); // touches every page: the first save shall not be slower than the others
    optimizer_shadow_take(s->optimizer, o);
    return s;
}

void saver_free(struct saver *s) {
    if (!s) return;
    aside_free(s->aside);
    optimizer_free(s->optimizer);
    model_shadow_free(s->model);
    text_free(&s->state.options);
    text_free(&s->folder);
    mem_free(s);
}

static void write_copy(void *arg) {
    struct saver *s = arg;
    s->saved.good = checkpoint_save(s->saved.folder, s->model, s->tokenizer, s->optimizer, &s->state, s->keep, &s->saved.err);
    s->saved.seconds = time_now() - s->start;
}

void saver_start(struct saver *s, const char *folder, const struct model *m, const struct tokenizer *t, const struct optimizer *o,
                 const struct run_state *r, int keep) {
    assert(!s->pending);
    s->start = time_now();
    struct text options = s->state.options;
    text_clear(&options);
    text_add(&options, r->options.data ? r->options.data : "", r->options.len);
    s->state = *r;
    s->state.options = options;
    s->tokenizer = t, s->keep = keep, s->pending = true;
    model_shadow_take(s->model, m);
    optimizer_shadow_take(s->optimizer, o);
    text_clear(&s->folder);
    text_str(&s->folder, folder);
    s->saved = (struct saved){.folder = s->folder.data, .tokens = r->tokens, .copy_s = time_now() - s->start};
    aside_start(s->aside, write_copy, s);
}

bool saver_done(struct saver *s, bool wait, struct saved *what) {
    if (!s->pending || (!wait && aside_busy(s->aside))) return false;
    aside_wait(s->aside);
    s->pending = false;
    *what = s->saved;
    return true;
}
