// run_bench.c: the modes of ./run that measure: --ceiling what the machine can do, --bench what the model makes of it.
//
// A prompt is bound by the unit that multiplies, generation by reading memory: every weight once per token. So each line of
// --bench ends with its share of that ceiling, which is measured between the two, on the same threads. Both are lower
// where other work runs beside; the share is what to compare. A small model stays in the caches and may pass 100%.
#include "run.h"

#include <stdlib.h>
#include <string.h>

// ---- --ceiling ----------------------------------------------------------------------------------------------------

enum { COLUMNS_MOST = 10, STEP_BY_ONE = 4 };
static const double ceiling_seconds = 4, bench_seconds = .6; // of measuring, in all

// 1, 2, 3, 4, then doubling, and all.
static int thread_counts(int all, int counts[COLUMNS_MOST]) {
    int n = 0;
    for (int t = 1; t < all; t = t < STEP_BY_ONE ? t + 1 : 2 * t) counts[n++] = t;
    counts[n++] = all;
    return n;
}

static void ceiling_json(const struct ceiling *row, int threads) {
    struct text line = {0};
    struct json_out out;
    json_out_open(&out, &line);
    json_out_object(&out, NULL);
    json_out_string(&out, "name", row->name, strlen(row->name));
    json_out_integer(&out, "threads", threads);
    json_out_number(&out, "per_second", row->per_second);
    json_out_string(&out, "measure", row->measure, strlen(row->measure));
    json_out_close(&out, '}');
    puts(line.data);
    text_free(&line);
}

int bench_ceiling(const struct backend *backend, bool json, struct err *err) {
    struct ceiling found[COLUMNS_MOST][CEILINGS_MOST];
    int counts[COLUMNS_MOST], columns = thread_counts(pool_threads(), counts), rows = 0;
    if (!backend->reads_host) columns = 1; // a GPU has no use for threads
    for (int c = 0; c < columns; c++) {
        pool_start(counts[c]);
        rows = backend->ceilings(found[c], ceiling_seconds / (columns > 2 ? columns : 2), err);
        if (!rows) return 1;
    }
    for (int r = 0; json && r < rows; r++)
        for (int c = 0; c < columns; c++) ceiling_json(&found[c][r], counts[c]);
    if (json) return 0;
    printf("%-18s", backend->reads_host ? "threads" : backend->name);
    for (int c = 0; c < columns && backend->reads_host; c++) printf(" %9d", counts[c]);
    for (int r = 0; r < rows; r++) {
        printf("\n%-18s", found[0][r].name);
        for (int c = 0; c < columns; c++) printf(" %9.1f", found[c][r].per_second * 1e-9);
        printf("  %s", found[0][r].measure);
    }
    puts("");
    return 0;
}

// ---- --bench ------------------------------------------------------------------------------------------------------

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Tokens per second of a feed: median, lowest, highest.
struct speed {
    double median, low, high;
};

static bool measure(struct session *s, const struct bench_options *b, const int32_t *ids, int64_t prompt, int64_t fresh,
                    struct speed *speed, struct err *err) {
    double *times = mem_array((size_t)b->repeats, sizeof *times, "bench times"), n = (double)(prompt + fresh);
    bool fine = true;
    for (int64_t i = 0; fine && i < b->repeats; i++) {
        session_rewind(s, b->depth);
        if (b->profile) backend_profile_run(i > 0); // the first run takes memory
        double start = time_now();
        if (prompt) fine = session_feed(s, ids, prompt, FEED_PROMPT, LOGITS_LAST, err) != NULL;
        for (int64_t t = 0; fine && t < fresh; t += b->rows)
            fine = session_feed(s, ids + t, b->rows, FEED_GENERATED, b->rows > 1 ? LOGITS_ALL : LOGITS_LAST, err) != NULL;
        times[i] = time_now() - start;
    }
    if (b->profile) backend_profile_run(false);
    qsort(times, (size_t)b->repeats, sizeof *times, by_size);
    if (fine) *speed = (struct speed){n / times[b->repeats / 2], n / times[b->repeats - 1], n / times[0]};
    mem_free(times);
    return fine;
}

// Bytes of weights a generated token reads: all matrices, the head once, one row of an untied embedding.
static double bytes_per_token(const struct app *a) {
    double sum = 0;
    for (size_t i = 0; i < model_file_tensor_count(a->file); i++) {
        const struct file_tensor *t = model_file_tensor_at(a->file, i);
        if (a->model->config.tied || strcmp(t->name, "token_embd.weight") != 0) sum += (double)t->bytes;
    }
    return sum;
}

// Bytes of keys and values that a token reads behind `length` others: a local layer reads its window of them.
static double cache_bytes_per_token(const struct model_config *c, const struct bench_options *b, double length) {
    double rows = 0;
    for (int64_t l = 0; l < c->L; l++) rows += config_is_local(c, l) && (double)c->window < length ? (double)c->window : length;
    size_t k = 0, v = 0;
    bool known = dtype_row_bytes(b->keys, c->G * c->D, &k) && dtype_row_bytes(b->values, c->G * c->D, &v);
    return known ? rows * (double)(k + v) : 0;
}

// The format that most of the weights have.
static enum dtype weights_dtype(const struct app *a) {
    double bytes[DTYPE_COUNT] = {0};
    int most = DTYPE_F32;
    for (size_t i = 0; i < model_file_tensor_count(a->file); i++) {
        const struct file_tensor *t = model_file_tensor_at(a->file, i);
        if (t->dtype < DTYPE_COUNT) bytes[t->dtype] += (double)t->bytes;
    }
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most]) most = d;
    return (enum dtype)most;
}

// One line of --bench: what was fed, how fast, and the share of the ceiling that bounds it.
struct bench_line {
    const char *what;
    int64_t tokens, depth, rows; // rows: of a pass of generation, 0 for a prompt
    struct speed speed;
    double done; // bytes or operations per second
    const char *detail;
    const struct ceiling *ceiling;
};

static void line_text(const struct bench_line *l) {
    printf("%s of %lld", l->what, (long long)l->tokens);
    if (l->rows > 1) printf(" by %lld", (long long)l->rows);
    if (l->depth) printf(" behind %lld", (long long)l->depth);
    printf(": %.1f tokens/s (%.1f..%.1f), %s", l->speed.median, l->speed.low, l->speed.high, l->detail);
    printf(", %.3g%% of %s (%.1f %s)\n", 100 * l->done / l->ceiling->per_second, l->ceiling->name, l->ceiling->per_second * 1e-9,
           l->ceiling->measure);
}

static void line_json(const struct bench_line *l) {
    struct text line = {0};
    struct json_out out;
    json_out_open(&out, &line);
    json_out_object(&out, NULL);
    json_out_string(&out, "what", l->what, strlen(l->what));
    json_out_integer(&out, "tokens", l->tokens);
    json_out_integer(&out, "depth", l->depth);
    if (l->rows) json_out_integer(&out, "rows", l->rows);
    json_out_integer(&out, "threads", pool_threads());
    json_out_number(&out, "tokens_per_second", l->speed.median);
    json_out_number(&out, "lowest", l->speed.low);
    json_out_number(&out, "highest", l->speed.high);
    json_out_number(&out, "share", l->done / l->ceiling->per_second);
    json_out_string(&out, "ceiling", l->ceiling->name, strlen(l->ceiling->name));
    json_out_number(&out, "ceiling_per_second", l->ceiling->per_second);
    json_out_close(&out, '}');
    puts(line.data);
    text_free(&line);
}

static const struct ceiling *ceiling_named(const struct ceiling *c, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(c[i].name, name)) return &c[i];
    return &c[0]; // a unit that was not measured; the line names what it is compared with
}

static void print_prompt(const struct app *a, const struct bench_options *b, struct speed speed, const struct ceiling *c, int count) {
    // half the keys are causal; a training step is three times the forward one
    double flops = config_flops_per_token(&a->model->config, b->prompt + 2 * b->depth) / 3;
    const char *unit = a->backend->unit(weights_dtype(a), b->exact ? PRECISION_F32 : PRECISION_BF16);
    char detail[64];
    snprintf(detail, sizeof detail, "%.1f GFLOP/s", flops * speed.median * 1e-9);
    struct bench_line line = {"prompt", b->prompt, b->depth, 0, speed, flops * speed.median, detail, ceiling_named(c, count, unit)};
    (b->json ? line_json : line_text)(&line);
}

// A pass reads the weights and the cache once, whatever its rows; with many rows the unit that multiplies binds instead.
static void print_generation(const struct app *a, const struct bench_options *b, struct speed speed, const struct ceiling *c, int count) {
    double passes = speed.median / (double)b->rows, length = (double)b->depth + (double)b->fresh / 2;
    double weights = bytes_per_token(a) * passes, cache = cache_bytes_per_token(&a->model->config, b, length) * passes;
    double flops = config_flops_per_token(&a->model->config, (int64_t)(2 * length)) / 3 * speed.median;
    const struct ceiling *unit = ceiling_named(c, count, a->backend->unit(weights_dtype(a), PRECISION_F32));
    bool reads = b->rows == 1 || flops / unit->per_second < (weights + cache) / c[0].per_second;
    char detail[96];
    snprintf(detail, sizeof detail, "%.2f GB/s of weights, %.2f of cache", weights * 1e-9, cache * 1e-9);
    struct bench_line line = {"generation", b->fresh, b->depth, b->rows, speed, reads ? weights + cache : flops, detail, reads ? &c[0] : unit};
    (b->json ? line_json : line_text)(&line);
}

static void print_profile(const struct bench_options *b) {
    struct text table = {0};
    if (b->profile) backend_profile(&table);
    if (b->profile) fputs(table.data, stderr);
    text_free(&table);
}

int bench_model(struct app *a, const struct bench_options *b, struct err *err) {
    int64_t count = b->prompt > b->fresh ? b->prompt : b->fresh;
    if (b->depth > count) count = b->depth;
    int32_t *ids = mem_array((size_t)count, sizeof *ids, "bench tokens");
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)rng_below(1, 0, (uint64_t)i, (uint64_t)a->model->config.V);
    struct ceiling ceilings[CEILINGS_MOST];
    struct speed prompt, fresh;
    int found = 0;
    bool fine = session_settle(a->session, err);
    fine = fine && (!b->depth || session_feed(a->session, ids, b->depth, FEED_PROMPT, LOGITS_NONE, err));
    if (fine && b->prompt) fine = measure(a->session, b, ids, b->prompt, 0, &prompt, err);
    if (fine) fine = (found = a->backend->ceilings(ceilings, bench_seconds, err)) > 0;
    if (fine && b->prompt) print_prompt(a, b, prompt, ceilings, found), print_profile(b);
    if (fine && b->fresh) fine = measure(a->session, b, ids, 0, b->fresh, &fresh, err);
    if (fine && b->fresh) print_generation(a, b, fresh, ceilings, found), print_profile(b);
    mem_free(ids);
    return fine ? 0 : 1;
}
