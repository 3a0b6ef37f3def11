// run_models.c: the modes of ./run that write a model or set one against another.
//
// What is written goes to a temporary beside its place, is read back and compared with its source, and only then gets its
// name: a file that fails the check does not stay. --export must compute the same; --quantize is measured, on a text of
// the user's, on the part of the --imatrix text that the matrix has not seen, or on what the source itself writes.
//
// A quantized file fails when it predicts the source no better than a guess without a model would: KL(source || written)
// is not below KL(source || all tokens alike). Everything better is a matter of taste, and told.
#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPORT_CHUNKS = 16, SAMPLE_WINDOW = 128, SAMPLE_TOKENS = 512, SAMPLE_SEED = 1 };

static int64_t chunk_of(const struct app *a, const struct models_options *o) {
    return o->ctx ? o->ctx : a->model->config.ctx < 512 ? a->model->config.ctx : 512;
}

static bool read_text(const struct app *a, const char *path, struct ids *ids, struct err *err) {
    struct text text = {0};
    if (!file_read_all(path, (size_t)1 << 32, &text, err)) return false;
    tokenizer_encode(a->tokenizer, text.data, text.len, TOKENIZE_BOS, ids);
    text_free(&text);
    return true;
}

static struct session *scoring_session(struct model *m, const struct models_options *o, int64_t ctx, struct err *err) {
    struct session_options so = {.ctx = ctx, .chunk = o->rows, .all_logits = PERPLEXITY_ROWS, .kv = o->kv,
                                 .exact = true}; // small differences are what is looked for
    if (!model_settle(m, err)) return NULL; // before memory is counted
    size_t need = session_bytes(m, &so), have = mem_available_bytes();
    if (have && need > have) {
        char n[32], h[32];
        err_set(err, "scoring in chunks of %lld tokens needs %s, but %s are free: give a smaller -c", (long long)ctx,
                text_bytes(n, (double)need), text_bytes(h, (double)have));
        return NULL;
    }
    return session_new(m, &so, err);
}

static void tell_notes(const struct text *notes) {
    for (const char *line = notes->data, *end; line && *line; line = end + 1) {
        end = strchr(line, '\n');
        fprintf(stderr, "note: %.*s\n", (int)(end - line), line);
    }
}

// ---- comparing ----------------------------------------------------------------------------------------------------

static void tell_scored(void *arg, const struct perplexity *p) {
    progress_line(arg, false, "%lld tokens scored, perplexity %.4f", (long long)p->tokens, perplexity_of(p, NULL));
}

// The lines of a comparison on `to`, and on standard output as JSON members when j is given.
static void tell_divergence(const struct divergence *d, const char *model, const char *reference, FILE *to, struct json_out *j) {
    double n = (double)d->model.tokens, error, reference_error, ratio_error;
    double ratio = divergence_ratio(d, &ratio_error), share = (double)d->same_top / n;
    double value = perplexity_of(&d->model, &error), reference_value = perplexity_of(&d->reference, &reference_error);
    double share_error = sqrt(share * (1 - share) / fmax(n - 1, 1));
    if (j) {
        json_out_integer(j, "tokens", d->model.tokens);
        json_out_bool(j, "identical", d->identical);
        json_out_number(j, "kl", d->kl / n);
        json_out_number(j, "kl_error", divergence_kl_error(d));
        json_out_number(j, "kl_median", d->median);
        json_out_number(j, "kl_p99", d->p99);
        json_out_number(j, "kl_p999", d->p999);
        json_out_number(j, "kl_most", d->most);
        json_out_number(j, "same_top", share);
        json_out_number(j, "same_top_error", share_error);
        json_out_number(j, "perplexity", value);
        json_out_number(j, "perplexity_error", error);
        json_out_number(j, "reference_perplexity", reference_value);
        json_out_number(j, "reference_perplexity_error", reference_error);
        json_out_number(j, "ratio", ratio);
        json_out_number(j, "ratio_error", ratio_error);
        return;
    }
    fprintf(to, "  KL(%s || %s)  mean %.6f +- %.6f, median %.6f, 99%% %.6f, 99.9%% %.6f, most %.6f nats per token\n", reference, model,
            d->kl / n, divergence_kl_error(d), d->median, d->p99, d->p999, d->most);
    fprintf(to, "  same first choice       %.2f +- %.2f%% of %lld tokens%s\n", 100 * share, 100 * share_error,
            (long long)d->model.tokens, d->identical ? "; all logits are identical" : "");
    fprintf(to, "  perplexity              %s %.4f +- %.4f, %s %.4f +- %.4f, ratio %.5f +- %.5f\n", reference, reference_value,
            reference_error, model, value, error, ratio, ratio_error);
}

// Ids mean the same text in both, or a comparison of their probabilities means nothing.
static bool same_vocabulary(const struct app *a, const struct model *reference, const struct model_file *f,
                            const struct models_options *o, struct err *err) {
    if (a->model->config.V != reference->config.V)
        return err_set(err, "the vocabularies differ: %s has %lld tokens, %s %lld", o->model, (long long)a->model->config.V,
                       o->against, (long long)reference->config.V);
    if (meta_kind(f, "tokenizer.ggml.model") == META_ABSENT) {
        fprintf(stderr, "note: %s carries no tokenizer; its ids are taken to mean what those of %s do\n", o->against, o->model);
        return true;
    }
    struct tokenizer *t = tokenizer_from_file(f, err);
    if (!t) return false;
    bool same = tokenizer_vocab(t) == tokenizer_vocab(a->tokenizer) ||
                err_set(err, "the vocabularies differ: the tokenizer of %s has %lld tokens, that of %s %lld", o->model,
                        (long long)tokenizer_vocab(a->tokenizer), o->against, (long long)tokenizer_vocab(t));
    for (int64_t i = 0; same && i < tokenizer_vocab(t); i++) {
        struct span x = tokenizer_token(a->tokenizer, (int32_t)i), y = tokenizer_token(t, (int32_t)i);
        if (x.n != y.n || memcmp(x.p, y.p, x.n) != 0)
            same = err_set(err, "the vocabularies differ, first at token %lld: the ids of %s and %s mean different texts",
                           (long long)i, o->model, o->against);
    }
    tokenizer_free(t);
    return same;
}

static bool compare(struct app *a, const struct models_options *o, struct model *reference, struct divergence *d,
                    struct err *err) {
    struct ids ids = {0};
    struct progress progress;
    int64_t ctx = chunk_of(a, o);
    struct session *s = NULL, *t = NULL;
    bool good = read_text(a, o->text, &ids, err) && (s = scoring_session(a->model, o, ctx, err)) &&
                (t = scoring_session(reference, o, ctx, err));
    progress_open(&progress, 5);
    struct scoring scoring = {.session = s, .tokenizer = a->tokenizer, .ids = ids.id, .n = ids.count, .ctx = ctx,
                              .stride = o->stride, .max_chunks = o->chunks, .each = tell_scored, .arg = &progress};
    good = good && divergence_run(&scoring, t, d, err);
    progress_close(&progress);
    session_free(s);
    session_free(t);
    ids_free(&ids);
    return good;
}

static void print_json(const struct text *line) { printf("%s\n", line->data); }

int models_compare(struct app *a, const struct models_options *o, struct err *err) {
    struct divergence d;
    if (!o->text) return err_set(err, "--kl-against compares on a text: give it with -f or --perplexity"), 2;
    if (chunk_of(a, o) < 4) return err_set(err, "-c %lld is too small to score a text", (long long)chunk_of(a, o)), 2;
    struct model_file *f = model_file_open(o->against, err);
    struct model *reference = f ? model_load(f, a->backend, err) : NULL;
    bool good = reference && same_vocabulary(a, reference, f, o, err) && compare(a, o, reference, &d, err);
    if (good && o->json) {
        struct text line = {0};
        struct json_out j;
        json_out_open(&j, &line);
        json_out_object(&j, NULL);
        json_out_string(&j, "model", o->model, strlen(o->model));
        json_out_string(&j, "reference", o->against, strlen(o->against));
        json_out_integer(&j, "ctx", chunk_of(a, o));
        json_out_integer(&j, "stride", o->stride);
        tell_divergence(&d, NULL, NULL, NULL, &j);
        json_out_close(&j, '}');
        print_json(&line);
        text_free(&line);
    } else if (good) {
        printf("%s against %s on %s (%s, context %lld)\n", o->model, o->against, o->text,
               o->stride ? "sliding window" : "second halves of chunks", (long long)chunk_of(a, o));
        tell_divergence(&d, "model", "reference", stdout, NULL);
    }
    model_free(reference);
    model_file_close(f);
    return good ? 0 : 1;
}

// ---- importance matrices ------------------------------------------------------------------------------------------

static void tell_chunk(void *arg, int64_t done, int64_t of) {
    progress_line(arg, false, "importance matrix: chunk %lld of %lld", (long long)done, (long long)of);
}

static struct imatrix *collect(struct app *a, const struct models_options *o, const struct ids *ids, int64_t tokens,
                               struct err *err) {
    int64_t chunk = chunk_of(a, o);
    struct progress progress;
    struct session *s = session_new(a->model, &(struct session_options){.ctx = chunk, .chunk = o->rows, .kv = o->kv, .exact = true}, err);
    if (!s) return NULL;
    bool bos = tokenizer_adds_bos(a->tokenizer);
    if (o->chunks && tokens > o->chunks * chunk) tokens = o->chunks * chunk;
    progress_open(&progress, 5);
    struct imatrix_text text = {.ids = ids->id, .n = tokens, .chunk = chunk, .bos = bos ? tokenizer_bos(a->tokenizer) : -1,
                                .each = tell_chunk, .arg = &progress};
    struct imatrix *m = imatrix_collect(a->model, s, &text, err);
    progress_close(&progress);
    session_free(s);
    if (!m) return NULL;
    m->dataset = mem_text(o->imatrix);
    fprintf(stderr, "importance matrix: %zu matrices, from %lld chunks of %lld tokens of %s\n", m->n, (long long)m->chunks,
            (long long)chunk, o->imatrix);
    return m;
}

static struct imatrix *open_matrix(const struct models_options *o, struct err *err) {
    struct imatrix *m = imatrix_open(o->imatrix, err);
    if (m)
        fprintf(stderr, "importance matrix: %zu matrices, from %lld chunks of %s\n", m->n, (long long)m->chunks,
                m->dataset ? m->dataset : "an unknown text");
    return m;
}

int models_imatrix(struct app *a, const struct models_options *o, struct err *err) {
    struct ids ids = {0};
    if (!o->out) return err_set(err, "--imatrix without --quantize writes the matrix: give -o PATH"), 2;
    bool good = !o->imatrix_is_text || read_text(a, o->imatrix, &ids, err);
    struct imatrix *m = !good ? NULL : o->imatrix_is_text ? collect(a, o, &ids, (int64_t)ids.count, err) : open_matrix(o, err);
    good = m && imatrix_write(m, o->out, err);
    if (good) fprintf(stderr, "%s: written\n", o->out);
    imatrix_free(m);
    ids_free(&ids);
    return good ? 0 : 1;
}

// ---- the report of --quantize -------------------------------------------------------------------------------------

struct measure { // what a quantized file is measured on
    struct ids ids;
    const struct tokenizer *tokenizer; // for BOS; NULL: the ids have theirs
    int64_t ctx, stride, chunks;
    struct text what;
};

// Windows that the source writes itself: the texts that a user of the model sees are of this kind, and no file is needed.
static bool measure_own_text(const struct app *a, const struct models_options *o, struct measure *m, struct err *err) {
    struct ids ends = {0};
    int64_t eos = -1, bos = -1, V = a->model->config.V;
    m->ctx = a->model->config.ctx < SAMPLE_WINDOW ? a->model->config.ctx : SAMPLE_WINDOW;
    if (!meta_int(a->file, "tokenizer.ggml.eos_token_id", false, 0, V - 1, &eos, err) ||
        !meta_int(a->file, "tokenizer.ggml.bos_token_id", false, 0, V - 1, &bos, err))
        return false;
    if (m->ctx < 2) return err_set(err, "a model with a context of %lld tokens cannot be measured", (long long)m->ctx);
    struct session *s = session_new(a->model, &(struct session_options){.ctx = m->ctx, .kv = o->kv, .exact = true}, err);
    if (!s) return false;
    int64_t n = SAMPLE_TOKENS / m->ctx * m->ctx;
    for (int64_t i = 0; i < n; i++) ids_add(&m->ids, 0);
    if (eos >= 0) ids_add(&ends, (int32_t)eos);
    bool good = sample_text(s, &ends, (int32_t)(bos >= 0 ? bos : eos >= 0 ? eos : 0), m->ctx, SAMPLE_SEED, n, m->ids.id, err);
    session_free(s);
    ids_free(&ends);
    m->stride = m->ctx; // every token counts
    text_fmt(&m->what, "%lld windows of %lld tokens that the source wrote itself (temperature 1, seed %d)", (long long)(n / m->ctx),
             (long long)m->ctx, SAMPLE_SEED);
    return good;
}

static bool measure_report_text(const struct app *a, const struct models_options *o, struct measure *m, struct err *err) {
    m->ctx = chunk_of(a, o);
    m->tokenizer = a->tokenizer;
    m->chunks = o->chunks ? o->chunks : REPORT_CHUNKS;
    if (!read_text(a, o->report_text, &m->ids, err)) return false;
    if ((int64_t)m->ids.count < m->ctx)
        return err_set(err, "%s has %zu tokens, but one chunk needs %lld: give more text or a smaller -c", o->report_text,
                       m->ids.count, (long long)m->ctx);
    text_fmt(&m->what, "%s, chunks of %lld, second halves", o->report_text, (long long)m->ctx);
    return true;
}

// The matrix from the text, but for the last tenth when no other text is there to measure on.
static struct imatrix *collect_and_hold_out(struct app *a, const struct models_options *o, struct measure *m, struct err *err) {
    struct ids ids = {0};
    if (!read_text(a, o->imatrix, &ids, err)) return NULL;
    int64_t ctx = chunk_of(a, o), chunks = (int64_t)ids.count / ctx, held = 0;
    if (!o->report_text && chunks >= 2) {
        held = chunks / 10 > REPORT_CHUNKS ? REPORT_CHUNKS : chunks / 10 > 0 ? chunks / 10 : 1;
        for (int64_t i = (chunks - held) * ctx; i < chunks * ctx; i++) ids_add(&m->ids, ids.id[i]);
        m->ctx = ctx;
        m->tokenizer = a->tokenizer;
        text_fmt(&m->what, "the last %lld chunks of %s, which the importance matrix has not seen, second halves", (long long)held,
                 o->imatrix);
    }
    struct imatrix *matrix = collect(a, o, &ids, (chunks - held) * ctx, err);
    ids_free(&ids);
    return matrix;
}

static double bits_per_weight(const struct model_file *f) {
    double bits = 0, weights = 0;
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        double n = 1;
        for (int k = 0; k < t->n_dims; k++) n *= (double)t->size[k];
        bits += 8 * (double)t->bytes;
        weights += n;
    }
    return bits / weights;
}

static void tell_report(const struct app *a, const struct models_options *o, const struct model_file *written,
                        const struct measure *m, const struct divergence *d) {
    double from = bits_per_weight(a->file), to = bits_per_weight(written);
    size_t from_bytes = model_file_bytes(a->file), to_bytes = model_file_bytes(written);
    char x[32], y[32];
    fprintf(stderr, "%s as %s: %s, %.2f bits per weight; its source %s has %s, %.2f\n", o->out, o->quantize,
            text_bytes(y, (double)to_bytes), to, o->model, text_bytes(x, (double)from_bytes), from);
    fprintf(stderr, "measured on %s\n", m->what.data);
    tell_divergence(d, "quantized", "source", stderr, NULL);
    if (!o->json) return;
    struct text line = {0};
    struct json_out j;
    json_out_open(&j, &line);
    json_out_object(&j, NULL);
    json_out_string(&j, "model", o->out, strlen(o->out));
    json_out_string(&j, "source", o->model, strlen(o->model));
    json_out_string(&j, "type", o->quantize, strlen(o->quantize));
    json_out_integer(&j, "bytes", (int64_t)to_bytes);
    json_out_integer(&j, "source_bytes", (int64_t)from_bytes);
    json_out_number(&j, "bits_per_weight", to);
    json_out_number(&j, "source_bits_per_weight", from);
    json_out_string(&j, "measured_on", m->what.data, m->what.len);
    tell_divergence(d, NULL, NULL, NULL, &j);
    json_out_close(&j, '}');
    print_json(&line);
    text_free(&line);
}

// Measures the file at `path` against the open source; false when it is not to be kept.
static bool report(struct app *a, const struct models_options *o, const char *path, struct measure *m, struct err *err) {
    struct divergence d;
    struct progress progress;
    struct session *s = NULL, *t = NULL;
    bool good = m->ids.count || measure_own_text(a, o, m, err);
    struct model_file *f = good ? model_file_open(path, err) : NULL;
    struct model *written = f ? model_load(f, a->backend, err) : NULL;
    good = written && (s = scoring_session(written, o, m->ctx, err)) && (t = scoring_session(a->model, o, m->ctx, err));
    progress_open(&progress, 5);
    struct scoring scoring = {.session = s, .tokenizer = m->tokenizer, .ids = m->ids.id, .n = m->ids.count, .ctx = m->ctx,
                              .stride = m->stride, .max_chunks = m->chunks, .each = tell_scored, .arg = &progress};
    good = good && divergence_run(&scoring, t, &d, err);
    progress_close(&progress);
    session_free(s);
    session_free(t);
    model_free(written);
    if (good) tell_report(a, o, f, m, &d);
    model_file_close(f);
    if (good && (isnan(d.kl) || (!d.identical && d.kl >= d.guess)))
        return err_set(err, "%s would compute something else than its source: KL %.3g, a guess has %.3g; it is not kept", o->out,
                       d.kl / (double)d.model.tokens, d.guess / (double)d.model.tokens);
    return good || err_in(err, "the check of %s, which is not kept", o->out);
}

// ---- writing ------------------------------------------------------------------------------------------------------

static void write_tokenizer(void *arg, struct gguf_out *out) { tokenizer_write(arg, out); }

static void tell_written(void *arg, size_t done, size_t of) {
    progress_line(arg, false, "writing: %.0f%%", 100 * (double)done / fmax((double)of, 1));
}

// The dtype of most weights in matrices, when a folder can have it.
static bool folder_dtype(const struct model_file *f, const struct models_options *o, enum dtype *dtype, struct err *err) {
    size_t bytes[DTYPE_COUNT] = {0};
    if (o->dtype) {
        *dtype = dtype_from_name(o->dtype);
        return *dtype == DTYPE_F32 || *dtype == DTYPE_F16 || *dtype == DTYPE_BF16 ||
               err_set(err, "--dtype %s: expected f32, f16 or bf16", o->dtype);
    }
    enum dtype most = DTYPE_F32;
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (t->n_dims > 1 && t->dtype < DTYPE_COUNT) bytes[t->dtype] += t->bytes;
    }
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most]) most = (enum dtype)d;
    *dtype = most == DTYPE_F32 || most == DTYPE_BF16 ? most : DTYPE_F16;
    return true;
}

// An export changes number formats at most: the logits are those of the source, or nearly.
static bool check_export(const struct app *a, const struct models_options *o, const char *path, struct err *err) {
    struct export_check c;
    if (!model_export_check(a->file, path, a->backend, &c, err)) return err_in(err, "%s is not kept", o->out);
    if (isnan(c.kl)) return err_set(err, "the logits of %s are no numbers: %s is not kept", o->model, o->out);
    if (c.identical) {
        fprintf(stderr, "read back: logits of %lld positions are identical\n", (long long)c.positions);
        return true;
    }
    fprintf(stderr, "read back: KL %.3g nats per token, largest difference of a logit %.3g, same first choice at %lld of %lld positions\n",
            c.kl, c.most, (long long)c.same_top, (long long)c.positions);
    return (isfinite(c.kl) && c.kl < 2) ||
           err_set(err, "%s would compute something else than its source: it is not kept", o->out);
}

// Removes a folder of files.
static void remove_folder(const char *folder) {
    struct file_list files;
    struct text path = {0};
    if (file_list_open(&files, folder, NULL)) {
        for (size_t i = 0; i < files.count; i++) {
            text_clear(&path);
            text_fmt(&path, "%s/%s", folder, files.names[i]);
            remove(path.data);
        }
        file_list_free(&files);
    }
    rmdir(folder);
    text_free(&path);
}

// Moves the files of a folder into another, config.json last: without it a folder is no model.
static bool move_folder(const char *from, const char *to, struct err *err) {
    struct file_list files;
    struct text x = {0}, y = {0};
    bool good = file_make_folder(to, err) && file_list_open(&files, from, err);
    if (!good) return false;
    for (int last = 0; last < 2; last++)
        for (size_t i = 0; good && i < files.count; i++) {
            if ((strcmp(files.names[i], "config.json") == 0) != (last == 1)) continue;
            text_clear(&x);
            text_clear(&y);
            text_fmt(&x, "%s/%s", from, files.names[i]);
            text_fmt(&y, "%s/%s", to, files.names[i]);
            good = file_rename(x.data, y.data, err);
        }
    file_list_free(&files);
    text_free(&x);
    text_free(&y);
    return good;
}

// tokenizer.json for a folder; false with a note why there is none. A source that is a folder has its own.
static bool folder_tokenizer(const struct app *a, const struct models_options *o, struct text *json, struct text *notes) {
    struct err why;
    if (meta_kind(a->file, "lehr.tokenizer_json") != META_ABSENT) return false;
    struct tokenizer *t = NULL;
    if (meta_kind(a->file, "tokenizer.ggml.model") == META_ABSENT) err_set(&why, "the model carries no tokenizer");
    else t = tokenizer_from_file_as(a->file, o->tokenizer_pre, &why);
    bool written = t && tokenizer_write_json(t, json, notes, &why);
    if (!written) text_fmt(notes, "tokenizer.json is not written: %s\n", why.text);
    tokenizer_free(t);
    return written;
}

static int write_folder(struct app *a, const struct models_options *o, const char *unchecked, struct err *err) {
    struct text notes = {0}, json = {0};
    enum dtype dtype;
    if (!folder_dtype(a->file, o, &dtype, err)) return 2;
    bool tokenizer = folder_tokenizer(a, o, &json, &notes);
    bool written = hf_write(a->file, unchecked, dtype, tokenizer ? &json : NULL, &notes, err);
    text_free(&json);
    if (written) tell_notes(&notes);
    bool good = written && check_export(a, o, unchecked, err);
    bool moved = good && move_folder(unchecked, o->out, err);
    remove_folder(unchecked);
    text_free(&notes);
    return moved ? 0 : written && !good ? 3 : 1;
}

static bool choose_mix(const struct models_options *o, struct mix *mix, struct err *err) {
    const struct mix *found = mix_find(o->quantize);
    enum dtype d = dtype_from_name(o->quantize);
    if (!found && d < DTYPE_COUNT && dtype_row(d)->from_f32 && !o->pure)
        return err_set(err, "--quantize %s: no mix has this name; --pure makes all matrices %s", o->quantize, dtype_row(d)->name);
    if (!found && (!o->pure || d == DTYPE_COUNT || !dtype_row(d)->from_f32))
        return err_set(err, "--quantize %s: no type that this program writes; --list names them", o->quantize);
    *mix = found ? *found
                 : (struct mix){.name = dtype_row(d)->name, .file_type = dtype_row(d)->gguf_file_type, .base = d};
    mix->pure = o->pure;
    // Without rules the name is that of the dtype, whatever mix it came from.
    if (o->pure) mix->file_type = dtype_row(mix->base)->gguf_file_type;
    if (mix->needs_importance && !o->imatrix)
        return err_set(err, "--quantize %s: is of no use without an importance matrix; give --imatrix FILE", o->quantize);
    if (mix->wants_importance && !o->imatrix)
        fprintf(stderr, "note: %s suffers without an importance matrix; --imatrix FILE (a text will do) makes it better\n", mix->name);
    return true;
}

static int write_file(struct app *a, const struct models_options *o, const char *unchecked, struct err *err) {
    struct text notes = {0};
    struct mix mix;
    struct measure measure = {0};
    struct imatrix *matrix = NULL;
    struct progress progress;
    struct export_options options = {.importance_path = o->imatrix, .each = tell_written, .each_arg = &progress};
    if (o->quantize && !choose_mix(o, &mix, err)) return 2;
    if (o->quantize) options.mix = &mix;
    if (o->new_tokenizer) options.tokenizer = write_tokenizer, options.arg = a->tokenizer;
    if (o->report_text && !measure_report_text(a, o, &measure, err)) return 1; // before hours of work, not after
    if (o->imatrix) matrix = o->imatrix_is_text ? collect_and_hold_out(a, o, &measure, err) : open_matrix(o, err);
    options.importance = matrix;
    progress_open(&progress, 5);
    bool written = (!o->imatrix || matrix) && model_export_gguf(a->file, unchecked, &options, &notes, err);
    progress_close(&progress);
    if (written) tell_notes(&notes);
    bool good = written && (o->quantize ? report(a, o, unchecked, &measure, err) : check_export(a, o, unchecked, err));
    bool moved = good && file_rename(unchecked, o->out, err);
    if (written && !moved) remove(unchecked);
    imatrix_free(matrix);
    ids_free(&measure.ids);
    text_free(&measure.what);
    text_free(&notes);
    return moved ? 0 : written && !good ? 3 : 1;
}

int models_write(struct app *a, const struct models_options *o, struct err *err) {
    struct text unchecked = {0};
    bool folder = o->export && !strcmp(o->export, "hf");
    text_fmt(&unchecked, "%s.unchecked-%ld", o->out, (long)getpid());
    int code = folder ? write_folder(a, o, unchecked.data, err) : write_file(a, o, unchecked.data, err);
    if (!code) fprintf(stderr, "%s: written\n", o->out);
    text_free(&unchecked);
    return code;
}
