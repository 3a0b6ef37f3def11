// train_end.c: what a run leaves behind: model.gguf, texts of the new model, report.html, a plot in the terminal.
#include "train.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

// The losses of a log as one terminal plot.
void draw_log(const struct log_rows *rows, FILE *to) {
    enum { KINDS = 4 };
    static const char *const names[KINDS] = {"training loss", "validation", "had it been cooled down", "validation of the old text"};
    struct series series[KINDS];
    size_t shown = 0, n[KINDS] = {0};
    double *x[KINDS], *y[KINDS];
    for (int k = 0; k < KINDS; k++) {
        x[k] = mem_array(rows->count + 1, sizeof **x, "plot");
        y[k] = mem_array(rows->count + 1, sizeof **y, "plot");
    }
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        const double value[KINDS] = {row->loss, row->val_loss, row->cooled_tokens > 0 ? row->cooled_loss : NAN, row->val_loss_replay};
        for (int k = 0; k < KINDS; k++) {
            if (!isfinite(value[k])) continue;
            x[k][n[k]] = (double)(k == 2 ? row->cooled_tokens : row->tokens);
            y[k][n[k]++] = value[k];
        }
    }
    for (int k = 0; k < KINDS; k++)
        if (k == 0 || n[k]) series[shown++] = (struct series){names[k], x[k], y[k], n[k], k ? LOOK_POINTS : LOOK_LINE};
    struct plot plot = {"loss in nats per token", "tokens", "", series, shown, false, plot_top(y[0], n[0])};
    int width = term_width();
    plot_terminal(&plot, width > 100 ? 100 : width, 16, to);
    for (int k = 0; k < KINDS; k++) {
        mem_free(x[k]);
        mem_free(y[k]);
    }
}

void watch(const char *folder) {
    struct text log = {0}, report = {0};
    text_fmt(&log, "%s/log.jsonl", folder);
    text_fmt(&report, "%s/report.html", folder);
    for (bool complete = false; !complete && !stop_wanted;) {
        struct err err;
        struct log_rows rows = {0};
        complete = file_exists(report.data); // the last thing a run writes
        if (!log_read(log.data, &rows, &err)) fail(1, &err);
        if (isatty(STDOUT_FILENO)) fputs("\x1b[H\x1b[J", stdout);
        draw_log(&rows, stdout);
        size_t last = rows.count; // step
        while (last > 0 && !isfinite(rows.row[last - 1].loss)) last--;
        if (last) {
            const struct log_row *row = &rows.row[last - 1];
            printf("step %lld, %lld tokens, loss %.4f, learning rate %.2e, %.0f tokens/s%s\n", (long long)row->step,
                   (long long)row->tokens, row->loss, row->lr, row->tok_per_s, complete ? "; complete" : "; Ctrl-C ends watching");
        }
        fflush(stdout);
        log_rows_free(&rows);
        for (int i = 0; i < 20 && !complete && !stop_wanted; i++) usleep(100000);
    }
    text_free(&log);
    text_free(&report);
}

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

void run_sample(struct run *r, struct session *session, int64_t seed, int64_t tokens, bool echo, struct text *to) {
    struct err err;
    struct sampler_options options = sampler_defaults;
    options.seed = seed;
    struct sampler *sampler = sampler_new(&options, r->model->config.V);
    struct ids prompt = {0};
    const char *begin = opts.prompt ? opts.prompt : "";
    tokenizer_encode(r->tokenizer, begin, strlen(begin), TOKENIZE_BOS, &prompt);
    if (!prompt.count) ids_add(&prompt, tokenizer_eos(r->tokenizer) >= 0 ? tokenizer_eos(r->tokenizer) : 0);
    struct sample s = {.echo = echo};
    text_str(&s.text, begin);
    if (echo) fputs(begin, stdout);
    struct generate_options g = {.n = tokens, .logprobs = -1};
    struct generate_stats stats;
    session_rewind(session, 0);
    if (!generate(session, r->tokenizer, sampler, prompt.id, prompt.count, &g, take_token, &s, &stats, &err)) fail(1, &err);
    *to = s.text;
    ids_free(&prompt);
    sampler_free(sampler);
}

// Prints texts of the new model to standard output and keeps them for the report.
static char **write_samples(struct run *r) {
    struct err err;
    char **texts = mem_array((size_t)opts.samples + 1, sizeof *texts, "samples");
    struct session_options so = {.ctx = opts.seq};
    struct session *session = opts.samples ? session_new(r->model, &so, &err) : NULL;
    if (opts.samples && !session) fail(1, &err);
    for (int64_t i = 0; i < opts.samples && !stop_wanted; i++) {
        struct text text = {0};
        printf("\n--- sample %lld\n", (long long)i + 1);
        run_sample(r, session, opts.seed + i, -1, true, &text);
        putchar('\n');
        texts[i] = text.data;
    }
    session_free(session);
    return texts;
}

static void write_report(struct run *r, char **samples, double final_per_byte) {
    struct err err;
    struct text path = {0}, page = {0}, facts[8] = {0};
    struct log_rows rows = {0};
    text_fmt(&path, "%s/log.jsonl", opts.out);
    text_fmt(&page, "%s/report.html", opts.out);
    if (!log_read(path.data, &rows, &err)) fail(1, &err);
    const struct model_config *c = &r->model->config;
    text_fmt(&facts[0], "%s, %lld parameters: %lld blocks of %lld channels, %lld heads (%lld kv), vocabulary %lld",
             c->family->name, (long long)config_params(c), (long long)c->L, (long long)c->C, (long long)c->H,
             (long long)c->G, (long long)c->V);
    text_fmt(&facts[1], "%lld in %lld steps of %lld", (long long)r->state.tokens, (long long)r->state.step, (long long)amount.batch_tokens);
    text_fmt(&facts[2], "%s, peak %g, warmup %.0f tokens, decay %s over %.0f tokens", opts.schedule, amount.lr, amount.warmup, opts.decay_shape,
             r->schedule.decay);
    text_fmt(&facts[3], "%.1f s", r->state.seconds);
    text_fmt(&facts[4], "%.4f", final_per_byte);
    r->backend->report(&facts[5]);
    if (*opts.from) text_fmt(&facts[6], "%s, at %lld tokens", opts.from, (long long)r->state.tokens_before);
    if (opts.replay.count) text_fmt(&facts[7], "%g%% of the tokens, from a text of %lld", 100 * opts.replay_share, (long long)r->replay.count);
    const char *quality = r->draft ? "accepted, at temperature 1 and greedy" : "validation, nats per byte";
    if (r->draft) text_clear(&facts[4]), text_fmt(&facts[4], "%.1f%%, %.1f%%", 100 * r->score.acceptance, 100 * r->score.agreement);
    const char *pairs[] = {"model", facts[0].data, "tokens", facts[1].data, "learning rate", facts[2].data, "training time",
                           facts[3].data, quality, facts[4].data, "machine", facts[5].data, NULL, NULL, NULL, NULL};
    size_t n_facts = COUNT_OF(pairs) / 2 - 2;
    if (*opts.from) pairs[2 * n_facts] = "began with", pairs[2 * n_facts++ + 1] = facts[6].data;
    if (opts.replay.count) pairs[2 * n_facts] = "replayed", pairs[2 * n_facts++ + 1] = facts[7].data;
    size_t n_samples = 0;
    while (n_samples < (size_t)opts.samples && samples[n_samples]) n_samples++;
    struct report report = {opts.out, &rows, pairs, n_facts, (const char *const *)samples, n_samples, r->floor};
    if (!report_write(page.data, &report, &err)) fail(1, &err);
    draw_log(&rows, stderr);
    fprintf(stderr, "report: %s\n", page.data);
    text_free(&path);
    text_free(&page);
    for (size_t i = 0; i < COUNT_OF(facts); i++) text_free(&facts[i]);
    log_rows_free(&rows);
}

void finish(struct run *r) {
    struct err err;
    struct text path = {0};
    if (r->saved_at != r->state.tokens) save(r, opts.out, (int)opts.keep);
    double per_byte = log_evaluation(r, 16 * opts.eval_tokens);
    saved(r, true);
    progress_close(&r->progress);
    if (stop_wanted) return; // the checkpoint is whole: the same command makes the rest
    saver_free(r->saver);
    if (!log_close(r->log, &err) || !board_close(r->board, &err)) fail(1, &err);
    // The export reads its own file back, which takes the room of a second model: what only training needs goes first.
    train_state_free(r->acts);
    optimizer_swap(r->optimizer);
    optimizer_free(r->optimizer);
    enum dtype dtype = dtype_from_name(opts.export_dtype);
    text_fmt(&path, "%s/model.gguf", opts.out);
    if (!checkpoint_export(path.data, r->model, r->tokenizer, dtype, &r->notes, &err)) fail(1, &err);
    print_notes(&r->notes);
    fprintf(stderr, "model: %s written, read back and compared; try  ./run -m %s\n", path.data, path.data);
    if (r->draft) write_draft(r, path.data);
    char **samples = write_samples(r);
    write_report(r, samples, per_byte);
    text_free(&path);
    for (int64_t i = 0; i < opts.samples; i++) mem_free(samples[i]);
    mem_free(samples);
}
