// checkpoint: a run on disk, whole or not at all.
//
// A checkpoint is one GGUF: the model (so any reader of the model reads it), the tokenizer, the moments of the
// optimizer and the keys train.*. Numbers that must come back bit for bit are kept as such: 64-bit unsigned ones as
// hexadecimal text, the guard's doubles as pairs of 32-bit integers (low half first), everything else fits its key.
//
//   train.version 3          train.step, train.tokens, train.batch_tokens, train.sequence       u64
//   train.seed, train.data_hash  16 hexadecimal digits      train.seconds  f64     train.options  text
//   train.batch.now u64, .judged f64               train.noise.signal, .trace, .steps  f64 (absent: at the start)
//   train.rollback.good (absent: none), .count, .again, .passed  u64
//   train.before.tokens, .steps  u64 (absent: 0)
//   train.expert_use  layers x experts, i32 (models with experts)
//   train.guard.count, .skipped, .in_a_row  u64    train.guard.limit  f64    train.guard.loss, .norm  256 x i32
//
// Saving never endangers what is there: free space is asked first, the file appears by one rename after fsync, and
// older files go only after that. A seal (formats) tells a whole file from a damaged one; the newest whole one is
// resumed and every newer one that was passed over is named.
#include "learn/learn.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 3, SLACK_BYTES = 1 << 20 };

static char *path_in(const char *folder, const char *name) {
    struct text t = {0};
    text_fmt(&t, "%s/%s", folder, name);
    return t.data;
}

static void name_of(char name[64], int64_t tokens) {
    snprintf(name, 64, "ckpt-%lld.gguf", (long long)tokens);
}

// The token count in "ckpt-<tokens>.gguf", -1 for other names.
static int64_t tokens_of(const char *name) {
    if (strncmp(name, "ckpt-", 5) != 0) return -1;
    int64_t tokens = 0;
    const char *p = name + 5;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (tokens > (INT64_MAX - 9) / 10) return -1;
        tokens = tokens * 10 + (*p - '0');
    }
    return p > name + 5 && strcmp(p, ".gguf") == 0 ? tokens : -1;
}

// --- the keys train.* ----------------------------------------------------------------------------------------------

static void write_hex(struct gguf_out *o, const char *key, uint64_t x) {
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%016llx", (unsigned long long)x);
    gguf_out_text(o, key, digits, (size_t)n);
}

static void write_doubles(struct gguf_out *o, const char *key, const double *x) {
    int32_t halves[2 * GUARD_WINDOW];
    static_assert(sizeof halves == GUARD_WINDOW * sizeof *x, "a double is two halves");
    memcpy(halves, x, sizeof halves);
    gguf_out_i32s(o, key, halves, 2 * GUARD_WINDOW);
}

static void write_state(struct gguf_out *o, const struct run_state *r) {
    gguf_out_u32(o, "train.version", VERSION);
    gguf_out_u64(o, "train.step", (uint64_t)r->step);
    gguf_out_u64(o, "train.tokens", (uint64_t)r->tokens);
    gguf_out_u64(o, "train.batch_tokens", (uint64_t)r->batch_tokens);
    gguf_out_u64(o, "train.sequence", (uint64_t)r->T);
    write_hex(o, "train.seed", r->seed);
    write_hex(o, "train.data_hash", r->data_hash);
    gguf_out_f64(o, "train.seconds", r->seconds);
    gguf_out_text(o, "train.options", r->options.data ? r->options.data : "", r->options.len);
    gguf_out_u64(o, "train.guard.count", (uint64_t)r->guard.count);
    gguf_out_u64(o, "train.guard.skipped", (uint64_t)r->guard.skipped);
    gguf_out_u64(o, "train.guard.in_a_row", (uint64_t)r->guard.in_a_row);
    gguf_out_f64(o, "train.guard.limit", r->guard.limit);
    write_doubles(o, "train.guard.loss", r->guard.loss);
    write_doubles(o, "train.guard.norm", r->guard.norm);
    gguf_out_u64(o, "train.batch.now", (uint64_t)r->batch.now);
    gguf_out_f64(o, "train.batch.judged", r->batch.judged);
    gguf_out_f64(o, "train.noise.signal", r->batch.noise.signal);
    gguf_out_f64(o, "train.noise.trace", r->batch.noise.trace);
    gguf_out_f64(o, "train.noise.steps", r->batch.noise.steps);
    if (r->good >= 0) gguf_out_u64(o, "train.rollback.good", (uint64_t)r->good);
    gguf_out_u64(o, "train.rollback.count", (uint64_t)r->rollbacks);
    gguf_out_u64(o, "train.rollback.again", (uint64_t)r->again);
    gguf_out_u64(o, "train.rollback.passed", (uint64_t)r->passed);
    gguf_out_u64(o, "train.before.tokens", (uint64_t)r->tokens_before);
    gguf_out_u64(o, "train.before.steps", (uint64_t)r->steps_before);
}

// Whom the last step chose is told by the evaluation behind it, which a resumed run may still have to make.
static const char use_key[] = "train.expert_use";

static void write_use(struct gguf_out *o, const struct model *m) {
    if (m->expert_use) gguf_out_i32s(o, use_key, m->expert_use, (size_t)(m->config.L * m->config.E));
}

static bool read_use(const struct model_file *f, struct model *m, struct err *err) {
    const int64_t wanted = m->config.L * m->config.E;
    struct meta_array a;
    if (!m->expert_use) return true;
    if (!meta_array_open(f, use_key, META_INT, &a, err)) return false;
    if (a.count != (uint64_t)wanted)
        return err_set(err, "%s: key %s should hold %lld integers, found %llu", model_file_path(f), use_key, (long long)wanted,
                       (unsigned long long)a.count);
    int64_t rows;
    for (int64_t i = 0; meta_next_int(&a, &rows); i++) m->expert_use[i] = rows < 0 ? 0 : (int32_t)rows;
    return true;
}

static bool read_hex(const struct model_file *f, const char *key, uint64_t *x, struct err *err) {
    struct span s;
    if (!meta_text(f, key, true, &s, err)) return false;
    *x = 0;
    bool good = s.n == 16;
    for (size_t i = 0; good && i < 16; i++) {
        const char *digits = "0123456789abcdef", *at = s.p[i] ? strchr(digits, s.p[i]) : NULL;
        good = at != NULL;
        if (good) *x = *x << 4 | (uint64_t)(at - digits);
    }
    return good ||
           err_set(err, "%s: key %s should be 16 hexadecimal digits", model_file_path(f), key);
}

static bool read_doubles(const struct model_file *f, const char *key, double *x, struct err *err) {
    int32_t halves[2 * GUARD_WINDOW];
    struct meta_array a;
    if (!meta_array_open(f, key, META_INT, &a, err)) return false;
    if (a.count != 2 * GUARD_WINDOW)
        return err_set(err, "%s: key %s should hold %d integers, found %llu", model_file_path(f),
                       key, 2 * GUARD_WINDOW, (unsigned long long)a.count);
    int64_t half;
    for (size_t i = 0; meta_next_int(&a, &half); i++) halves[i] = (int32_t)half;
    memcpy(x, halves, sizeof halves);
    for (size_t i = 0; i < GUARD_WINDOW; i++)
        if (!isfinite(x[i]))
            return err_set(err, "%s: key %s holds a value that is not finite", model_file_path(f),
                           key);
    return true;
}

static bool read_count(const struct model_file *f, const char *key, int64_t least, int64_t *x,
                       struct err *err) {
    return meta_int(f, key, true, least, INT64_MAX, x, err);
}

bool checkpoint_read_state(const struct model_file *f, struct run_state *r, struct err *err) {
    *r = (struct run_state){.good = -1};
    int64_t version;
    struct span options = {0};
    if (meta_kind(f, "train.version") == META_ABSENT)
        return err_set(
            err,
            "%s: expected a checkpoint, found a model without training state; give a ckpt-*.gguf",
            model_file_path(f));
    if (!meta_int(f, "train.version", true, 0, INT64_MAX, &version, err)) return false;
    if (version != VERSION)
        return err_set(err, "%s: a checkpoint of version %lld; this program resumes version %d: ./run reads its weights, training starts anew in another --out",
                       model_file_path(f), (long long)version, VERSION);
    bool fine = read_count(f, "train.step", 0, &r->step, err) &&
                read_count(f, "train.tokens", 0, &r->tokens, err) &&
                read_count(f, "train.batch_tokens", 1, &r->batch_tokens, err) &&
                read_count(f, "train.sequence", 1, &r->T, err) &&
                read_hex(f, "train.seed", &r->seed, err) &&
                read_hex(f, "train.data_hash", &r->data_hash, err) &&
                meta_real(f, "train.seconds", true, 0, 1e12, &r->seconds, err) &&
                read_count(f, "train.guard.count", 0, &r->guard.count, err) &&
                read_count(f, "train.guard.skipped", 0, &r->guard.skipped, err) &&
                read_count(f, "train.guard.in_a_row", 0, &r->guard.in_a_row, err) &&
                meta_real(f, "train.guard.limit", true, 0, 1e12, &r->guard.limit, err) &&
                read_doubles(f, "train.guard.loss", r->guard.loss, err) &&
                read_doubles(f, "train.guard.norm", r->guard.norm, err) &&
                meta_int(f, "train.batch.now", false, 0, INT64_MAX, &r->batch.now, err) &&
                meta_real(f, "train.batch.judged", false, 0, 1e18, &r->batch.judged, err) &&
                meta_real(f, "train.noise.signal", false, -DBL_MAX, DBL_MAX, &r->batch.noise.signal, err) &&
                meta_real(f, "train.noise.trace", false, -DBL_MAX, DBL_MAX, &r->batch.noise.trace, err) &&
                meta_real(f, "train.noise.steps", false, 0, 1e18, &r->batch.noise.steps, err) &&
                meta_int(f, "train.rollback.good", false, 0, INT64_MAX, &r->good, err) &&
                meta_int(f, "train.rollback.count", false, 0, INT64_MAX, &r->rollbacks, err) &&
                meta_int(f, "train.rollback.again", false, 0, INT64_MAX, &r->again, err) &&
                meta_int(f, "train.rollback.passed", false, 0, INT64_MAX, &r->passed, err) &&
                meta_int(f, "train.before.tokens", false, 0, INT64_MAX, &r->tokens_before, err) &&
                meta_int(f, "train.before.steps", false, 0, INT64_MAX, &r->steps_before, err) &&
                meta_text(f, "train.options", true, &options, err);
    if (!fine) return false;
    text_add(&r->options, options.p ? options.p : "", options.n);
    return true;
}

bool checkpoint_read_tensors(const struct model_file *f, struct model *m, struct optimizer *o,
                             struct err *err) {
    return model_read_weights(m, f, err) && read_use(f, m, err) && (!o || optimizer_read(o, f, err));
}

// --- saving --------------------------------------------------------------------------------------------------------

// Bytes of a file with `copies` f32 values per weight; tokenizer and keys are the slack.
static size_t file_bytes(const struct model_config *c, const struct tokenizer *t, int copies) {
    return (size_t)config_params(c) * sizeof(float) * (size_t)copies +
           (size_t)tokenizer_vocab(t) * 64 + SLACK_BYTES;
}

size_t checkpoint_bytes(const struct model_config *c, const struct tokenizer *t, size_t optimizer_bytes) {
    return file_bytes(c, t, 1) + optimizer_bytes;
}

static bool room_for(const char *folder, size_t bytes, struct err *err) {
    uint64_t have = file_free_bytes(folder);
    char need[32], left[32];
    if (have >= bytes) return true;
    return err_set(
        err,
        "%s: the file needs %s, the disk has %s free; nothing was written, free some space or keep fewer "
        "checkpoints",
        folder, text_bytes(need, (double)bytes), text_bytes(left, (double)have));
}

static int by_tokens_falling(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

// Token counts of the checkpoints in folder, newest first; *tokens is the caller's to free.
static bool list_tokens(const char *folder, int64_t **tokens, size_t *count, struct err *err) {
    struct file_list list;
    size_t cap = 0;
    *tokens = NULL;
    *count = 0;
    if (!file_list_open(&list, folder, err)) return false;
    for (size_t i = 0; i < list.count; i++) {
        int64_t n = tokens_of(list.names[i]);
        char name[64];
        name_of(name, n);
        if (n < 0 || strcmp(name, list.names[i]) != 0)
            continue; // not a name of ours ("ckpt-007.gguf")
        mem_grow((void **)tokens, &cap, *count + 1, sizeof **tokens, "list of checkpoints");
        (*tokens)[(*count)++] = n;
    }
    file_list_free(&list);
    if (*count) qsort(*tokens, *count, sizeof **tokens, by_tokens_falling);
    return true;
}

// Temporary files of checkpoints whose writer was killed: "ckpt-<tokens>.gguf.tmp-<pid>" of no living process.
static void remove_stale(const char *folder) {
    struct file_list list;
    if (!file_list_open(&list, folder, NULL)) return;
    for (size_t i = 0; i < list.count; i++) {
        const char *tmp = strstr(list.names[i], ".gguf.tmp-");
        if (strncmp(list.names[i], "ckpt-", 5) != 0 || !tmp) continue;
        long pid = strtol(tmp + strlen(".gguf.tmp-"), NULL, 10);
        if (pid <= 0 || pid == (long)getpid() || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
            continue;
        char *path = path_in(folder, list.names[i]);
        unlink(path);
        mem_free(path);
    }
    file_list_free(&list);
}

static void remove_one(const char *folder, int64_t tokens) {
    char name[64];
    name_of(name, tokens);
    char *path = path_in(folder, name);
    unlink(path);
    mem_free(path);
}

// Removes all but the newest `keep` of the checkpoints up to `tokens`, which was just written. What claims to be
// newer belongs to another story (a damaged file that was passed over) and stays.
static void remove_older(const char *folder, int64_t tokens, int keep) {
    int64_t *all;
    size_t count;
    int seen = 0;
    if (keep < 1 || !list_tokens(folder, &all, &count, NULL)) return;
    for (size_t i = 0; i < count; i++) {
        if (all[i] <= tokens && ++seen > keep) remove_one(folder, all[i]);
    }
    mem_free(all);
}

void checkpoint_thin(const char *good, const char *folder, int64_t tokens) {
    int64_t *all, *kept;
    size_t n, n_kept;
    if (!list_tokens(good, &all, &n, NULL)) return;
    if (!list_tokens(folder, &kept, &n_kept, NULL)) n = 0;
    for (size_t i = 0; i < n; i++) { // both fall: all[i - 1] is the next newer one
        if (all[i] > tokens) continue;
        bool needed = i == 0 || all[i - 1] > tokens;
        for (size_t k = 0; k < n_kept && !needed; k++) needed = kept[k] >= all[i] && kept[k] < all[i - 1];
        if (!needed) remove_one(good, all[i]);
    }
    mem_free(all);
    mem_free(kept);
}

void checkpoint_drop_after(const char *folder, int64_t tokens) {
    int64_t *all;
    size_t n;
    if (!list_tokens(folder, &all, &n, NULL)) return;
    for (size_t i = 0; i < n; i++)
        if (all[i] > tokens) remove_one(folder, all[i]);
    mem_free(all);
}

int64_t checkpoint_count(const char *folder) {
    int64_t *all;
    size_t n;
    if (!list_tokens(folder, &all, &n, NULL)) return 0;
    mem_free(all);
    return (int64_t)n;
}

bool checkpoint_save(const char *folder, const struct model *m, const struct tokenizer *t,
                     struct optimizer *o, const struct run_state *r, int keep,
                     struct err *err) {
    assert(m->trainable && r->tokens >= 0);
    char name[64];
    if (!file_make_folder(folder, err)) return false;
    remove_stale(folder);
    if (!room_for(folder, checkpoint_bytes(&m->config, t, optimizer_state_bytes(o)), err)) return false;
    name_of(name, r->tokens);
    char *path = path_in(folder, name);
    struct gguf_out *out = gguf_out_open(path, err);
    mem_free(path);
    if (!out) return false;
    config_write(&m->config, out);
    tokenizer_write(t, out);
    write_state(out, r);
    write_use(out, m);
    optimizer_keys(o, out);
    model_declare(m, DTYPE_F32, out, NULL);
    optimizer_declare(o, out);
    gguf_out_seal(out);
    model_write_data(m, DTYPE_F32, out);
    optimizer_write_data(o, out);
    if (!gguf_out_commit(out, err)) return false;
    remove_older(folder, r->tokens, keep);
    return true;
}

static bool is_whole(const char *path, struct err *err) {
    struct model_file *f = model_file_open(path, err);
    bool whole = f && model_file_seal(f, err);
    model_file_close(f);
    return whole;
}

bool checkpoint_newest(const char *folder, char **path, struct text *notes, struct err *err) {
    int64_t *all;
    size_t count;
    *path = NULL;
    if (err) err->text[0] = '\0';
    if (!file_exists(folder)) return false;
    if (!list_tokens(folder, &all, &count, err)) return false;
    for (size_t i = 0; i < count && !*path; i++) {
        char name[64];
        struct err why = {{0}};
        name_of(name, all[i]);
        char *candidate = path_in(folder, name);
        if (is_whole(candidate, &why)) {
            *path = candidate;
        } else {
            if (notes) text_fmt(notes, "passed over %s: %s\n", candidate, why.text);
            mem_free(candidate);
        }
    }
    mem_free(all);
    return *path != NULL;
}

// --- export --------------------------------------------------------------------------------------------------------

enum { PROBE_TOKENS = 16 };

// Logits [n,V] of a fixed text of n tokens; the caller frees them. NULL on failure.
static float *probe(struct model *m, int64_t n, struct err *err) {
    int32_t ids[PROBE_TOKENS];
    int64_t V = m->config.V;
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)(rng_below(1, 1, (uint64_t)i, (uint64_t)V));
    struct session *s = session_new(m, &(struct session_options){.ctx = n, .all_logits = n, .exact = true}, err);
    if (!s) return NULL;
    const float *logits = session_feed(s, ids, n, FEED_PROMPT, LOGITS_ALL, err);
    float *copy = NULL;
    if (logits) {
        copy = mem_array((size_t)(n * V), sizeof *copy, "logits to compare");
        memcpy(copy, logits, (size_t)(n * V) * sizeof *copy);
    }
    session_free(s);
    return copy;
}

// Root mean square of a - b against that of a around its mean: 0 for equal logits, about 1 for unrelated ones.
static double distance(const float *a, const float *b, size_t n) {
    double mean = 0, spread = 0, apart = 0;
    for (size_t i = 0; i < n; i++) mean += (double)a[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++) {
        spread += ((double)a[i] - mean) * ((double)a[i] - mean);
        apart += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    if (apart == 0) return 0;
    return spread > 0 ? sqrt(apart / spread) : INFINITY;
}

// How far logits may move when every weight is rounded once to the format. Measured on small models: F16 1e-4, BF16
// 1e-3, Q8_0 3e-3, Q4_0 0.05; depth adds to it. The limits leave room, yet what they are for (rows in the wrong
// order, a lost multiplier, a wrong tensor) moves logits by about 1. The products of a bf16 run round weights once
// more.
static double allowed(enum dtype matrices, enum dtype compute) {
    static const double of[DTYPE_COUNT] = {[DTYPE_F32] = 1e-5,
                                           [DTYPE_F16] = 0.01,
                                           [DTYPE_BF16] = 0.05,
                                           [DTYPE_Q8_0] = 0.1,
                                           [DTYPE_Q4_0] = 0.7,
                                           [DTYPE_Q4_1] = 0.7,
                                           [DTYPE_Q5_0] = 0.4,
                                           [DTYPE_Q5_1] = 0.4,
                                           [DTYPE_Q2_K] = 1.2,
                                           [DTYPE_Q3_K] = 1,
                                           [DTYPE_Q4_K] = 0.7,
                                           [DTYPE_Q5_K] = 0.4,
                                           [DTYPE_Q6_K] = 0.2,
                                           [DTYPE_IQ4_NL] = 0.7,
                                           [DTYPE_IQ4_XS] = 0.7,
                                           [DTYPE_MXFP4] = 0.9};
    assert(of[matrices] > 0);
    return of[matrices] + (compute == DTYPE_BF16 ? of[DTYPE_BF16] : 0);
}

static bool same_logits(const char *path, struct model *m, enum dtype matrices,
                        struct text *notes, struct err *err) {
    int64_t n = m->config.ctx < PROBE_TOKENS ? m->config.ctx : PROBE_TOKENS;
    struct model_file *f = model_file_open(path, err);
    struct model *back = f ? model_load(f, m->backend, err) : NULL;
    float *ours = back ? probe(m, n, err) : NULL, *theirs = ours ? probe(back, n, err) : NULL;
    bool fine = theirs != NULL;
    if (fine) {
        double apart = distance(ours, theirs, (size_t)(n * m->config.V)),
               limit = allowed(matrices, m->compute);
        if (!(apart <= limit))
            fine = err_set(
                err,
                "the exported model gives other logits than the trained one: they differ by %.3g of their "
                "spread, %.3g is allowed for %s",
                apart, limit, dtype_row(matrices)->name);
        else if (notes)
            text_fmt(
                notes,
                "read back and compared: logits differ by %.2g of their spread (%.2g allowed for %s)\n",
                apart, limit, dtype_row(matrices)->name);
    }
    mem_free(ours);
    mem_free(theirs);
    model_free(back);
    model_file_close(f);
    return fine;
}

static bool write_clean(const char *path, struct model *m, const struct tokenizer *t,
                        enum dtype matrices, struct text *notes, struct err *err) {
    struct gguf_out *out = gguf_out_open(path, err);
    if (!out) return false;
    config_write(&m->config, out);
    tokenizer_write(t, out);
    model_declare(m, matrices, out, notes);
    model_write_data(m, matrices, out);
    return gguf_out_commit(out, err);
}

static void sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!fsync(fd); // both names hold whole files, so either order on disk is good
    close(fd);
}

bool checkpoint_export(const char *path, struct model *m, const struct tokenizer *t,
                       enum dtype matrices, struct text *notes, struct err *err) {
    struct text folder = {0}, unproven = {0};
    const char *slash = strrchr(path, '/');
    if (slash) text_add(&folder, path, slash == path ? 1 : (size_t)(slash - path));
    else text_str(&folder, ".");
    text_fmt(&unproven, "%s.unproven", path);
    bool fine = room_for(folder.data, file_bytes(&m->config, t, 1), err) &&
                write_clean(unproven.data, m, t, matrices, notes, err);
    if (fine) {
        fine = same_logits(unproven.data, m, matrices, notes, err);
        if (fine && rename(unproven.data, path) != 0)
            fine = err_set(err, "%s: could not be put in place: %s", path, strerror(errno));
        if (fine) sync_folder(folder.data);
        else unlink(unproven.data);
    }
    text_free(&folder);
    text_free(&unproven);
    return fine;
}
