// test_real_models.c: models that people have, where somebody put them into the folder LEHR_MODELS (tests/fetch_models.sh).
//
// The goldens are ids in and ids out: transformers in f32 on the dequantized file, greedily (tests/check_llama_cpp.py
// --golden). They end before a choice so close that another order of sums may change it, so no tolerance is needed here.
#include "gen/gen.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

struct real {
    struct model_file *file;
    struct tokenizer *tokenizer;
    struct model *model;
    struct session *session;
};

static bool real_open(struct real *r, const char *name) {
    struct err err = {""};
    char path[4096];
    const char *folder = getenv("LEHR_MODELS");
    *r = (struct real){0};
    if (!folder) return false;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    if (!file_exists(path)) return false;
    pool_start(2);
    r->file = model_file_open(path, &err);
    cr_assert(r->file, "%s", err.text);
    r->tokenizer = tokenizer_from_file(r->file, &err);
    cr_assert(r->tokenizer, "%s", err.text);
    r->model = model_load(r->file, backend_cpu(NULL, &err), &err);
    cr_assert(r->model, "%s", err.text);
    struct session_options so = {.ctx = 512, .all_logits = 256};
    r->session = session_new(r->model, &so, &err);
    cr_assert(r->session, "%s", err.text);
    return true;
}

static void real_close(struct real *r) {
    session_free(r->session);
    model_free(r->model);
    tokenizer_free(r->tokenizer);
    model_file_close(r->file);
    pool_start(1);
}

// The ids of the line at *at, which moves behind it.
static struct ids line_of_ids(char **at) {
    struct ids ids = {0};
    while (**at && **at != '\n') ids_add(&ids, (int32_t)strtol(*at, at, 10));
    if (**at) ++*at;
    return ids;
}

static int32_t best_of(const float *logits, int64_t V) {
    int32_t best = 0;
    for (int32_t v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = v;
    return best;
}

// The choice after the prompt and after every chosen id, as generating makes them: the prompt is read as prompts are, with
// products in bf16 where that is fast, what was chosen with exact ones; all rows at a time, and the first few alone.
static void expect_choices(struct real *r, const char *name, const struct ids *prompt, const struct ids *chosen) {
    struct err err = {""};
    int64_t V = session_vocab(r->session), more = (int64_t)chosen->count - 1;
    cr_assert(prompt->count > 0 && chosen->count > 1 && prompt->count + chosen->count <= 256);
    session_rewind(r->session, 0);
    const float *logits = session_feed(r->session, prompt->id, (int64_t)prompt->count, FEED_PROMPT, LOGITS_LAST, &err);
    cr_assert(logits, "%s", err.text);
    cr_expect_eq(best_of(logits, V), chosen->id[0], "%s, choice 0", name);
    logits = session_feed(r->session, chosen->id, more, FEED_GENERATED, LOGITS_ALL, &err);
    cr_assert(logits, "%s", err.text);
    for (int64_t i = 0; i < more; i++) cr_expect_eq(best_of(logits + i * V, V), chosen->id[i + 1], "%s, choice %lld", name, (long long)i + 1);
    session_rewind(r->session, (int64_t)prompt->count);
    for (int64_t i = 0; i < more && i < 6; i++) {
        logits = session_feed(r->session, chosen->id + i, 1, FEED_GENERATED, LOGITS_LAST, &err);
        cr_assert(logits, "%s", err.text);
        cr_expect_eq(best_of(logits, V), chosen->id[i + 1], "%s, choice %lld alone", name, (long long)i + 1);
    }
}

TestSuite(real_models, .timeout = 300);

Test(real_models, greedy_choices_are_the_exact_ones) {
    static const char *const names[] = {"smollm2", "gemma3-270m", "sns05"};
    int found = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct real r;
        struct text file = {0};
        struct err err = {""};
        char golden[128];
        if (!real_open(&r, names[i])) continue;
        found++;
        snprintf(golden, sizeof golden, "tests/golden/real_%s.txt", names[i]);
        cr_assert(file_read_all(golden, 1 << 20, &file, &err), "%s", err.text);
        size_t prompts = 0, choices = 0;
        for (char *at = file.data; *at; prompts++) {
            struct ids prompt = line_of_ids(&at), chosen = line_of_ids(&at);
            choices += chosen.count;
            expect_choices(&r, names[i], &prompt, &chosen);
            ids_free(&prompt);
            ids_free(&chosen);
        }
        cr_expect(prompts == 4 && choices >= 20, "%zu choices of %zu prompts", choices, prompts);
        text_free(&file);
        real_close(&r);
    }
    if (!found) cr_skip_test("LEHR_MODELS names no folder with smollm2.gguf (sh tests/fetch_models.sh)");
}

// The first golden prompt of an instruction model is this question, rendered by transformers with the file's own template and
// tokenized by llama.cpp.
Test(real_models, a_chat_begins_with_the_ids_of_the_published_template) {
    static const char *const names[] = {"smollm2", "sns05"};
    int found = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct real r;
        struct text file = {0};
        struct rendering rendering = {{0}, {0}};
        struct ids ids = {0};
        struct err err = {""};
        char golden[128];
        if (!real_open(&r, names[i])) continue;
        found++;
        snprintf(golden, sizeof golden, "tests/golden/real_%s.txt", names[i]);
        cr_assert(file_read_all(golden, 1 << 20, &file, &err), "%s", err.text);
        char *at = file.data;
        struct ids wanted = line_of_ids(&at);
        struct chat_template *t = chat_template_from_model(r.file, &err);
        cr_assert(t, "%s", err.text);
        const struct chat_message question = {"user", {"What is the capital of France?", 30}};
        const struct tm day = {.tm_mday = 1, .tm_year = 100};
        cr_assert(chat_render(t, r.tokenizer, &question, 1, true, &day, &rendering, &err), "%s", err.text);
        chat_encode(r.tokenizer, &rendering, &ids);
        cr_expect(ids.count == wanted.count && !memcmp(ids.id, wanted.id, ids.count * sizeof *ids.id), "%s", names[i]);
        ids_free(&ids);
        ids_free(&wanted);
        rendering_free(&rendering);
        chat_template_free(t);
        text_free(&file);
        real_close(&r);
    }
    if (!found) cr_skip_test("LEHR_MODELS names no folder with an instruction model (sh tests/fetch_models.sh)");
}
