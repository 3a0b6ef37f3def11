// imatrix.c: which columns of a matrix matter.
//
// A product's error for one output is sum_j (w[j] - w'[j]) x[j]. Over a text, with columns taken as uncorrelated, its
// mean square is sum_j (w[j] - w'[j])^2 E[x[j]^2]: so the mean square of what enters column j is the weight of that
// column's error. A session is observed while it reads a text; the rows that enter each matrix are squared and summed
// in f64, in order of rows, so neither threads nor the cut into passes change the result by more than the activations
// do - and they do not (backend.h, rule 2).
//
// Two files of llama.cpp hold the same numbers:
//   GGUF      general.type "imatrix"; imatrix.datasets, .chunk_count, .chunk_size; per matrix NAME.in_sum2 F32
//             [matrices, columns] and NAME.counts F32 [matrices]: sums of squares and rows seen
//   legacy    i32 entries, then per entry i32 length, name, i32 calls, i32 values, values x f32 (the mean times calls);
//             then, perhaps, i32 chunks, i32 length, name of the text
#include "model/internal.h"

#include <math.h>
#include <string.h>

enum { ENTRIES_MOST = 1 << 20, NAME_MOST = 64 };

// ---- the table

static void entry_alloc(struct imatrix_entry *e, size_t values, size_t counts) {
    e->values = values;
    e->counts = counts;
    e->sum = mem_array(values, sizeof *e->sum, "importance matrix");
    e->count = mem_array(counts, sizeof *e->count, "importance matrix");
    e->mean = mem_array(values, sizeof *e->mean, "importance matrix");
}

static struct imatrix *table_new(size_t n) {
    struct imatrix *m = mem_alloc(sizeof *m, "importance matrix");
    m->entries = mem_array(n, sizeof *m->entries, "entries of an importance matrix");
    m->n = n;
    return m;
}

void imatrix_free(struct imatrix *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        mem_free(m->entries[i].sum);
        mem_free(m->entries[i].count);
        mem_free(m->entries[i].mean);
    }
    mem_free(m->entries);
    mem_free(m->dataset);
    mem_free(m);
}

const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name) {
    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->entries[i].name, name)) return &m->entries[i];
    return NULL;
}

// Means from sums; what no row reached stays zero, which weighs alike.
static bool finish(struct imatrix *m, const char *where, struct err *err) {
    for (size_t i = 0; i < m->n; i++) {
        struct imatrix_entry *e = &m->entries[i];
        size_t each = e->values / e->counts;
        for (size_t j = 0; j < e->values; j++) {
            double count = e->count[j / each];
            double mean = count > 0 ? e->sum[j] / count : 0;
            if (!(mean >= 0) || mean > (double)3e38f || !(count >= 0) || !isfinite(count))
                return err_set(err, "%s: the importance of column %zu of %s is %g (from %g rows): expected a number from 0 on",
                               where, j, e->name, mean, count);
            e->mean[j] = (float)mean;
        }
    }
    return true;
}

// ---- from a text

struct collector {
    const struct model *model;
    struct imatrix *to;
    int *entry;         // of each parameter, -1: none
    float *x;           // host rows
    int32_t *chosen;    // host
    size_t x_cap, chosen_cap;
};

struct squares {
    const struct collector *c;
    struct imatrix_entry *e;
    int64_t rows, cols, n_chosen;
};

static void add_columns(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct squares *q = arg;
    int64_t each = q->n_chosen ? q->n_chosen / q->rows : 1;
    (void)thread;
    for (int64_t i = 0; i < q->rows * each; i++) {
        const float *row = q->c->x + i / each * q->cols;
        double *sum = q->e->sum + (q->n_chosen ? q->c->chosen[i] * q->cols : 0);
        for (int64_t j = lo; j < hi; j++) sum[j] += (double)row[j] * (double)row[j];
    }
}

static void collect(void *arg, int param, struct tensor x, const int32_t *chosen, int64_t n_chosen) {
    struct collector *c = arg;
    const struct backend *b = c->model->backend;
    if (c->entry[param] < 0) return;
    struct imatrix_entry *e = &c->to->entries[c->entry[param]];
    struct squares q = {.c = c, .e = e, .rows = x.rows, .cols = x.cols, .n_chosen = n_chosen};
    assert(x.dtype == DTYPE_F32 && x.row_bytes == (size_t)x.cols * sizeof(float));
    mem_grow((void **)&c->x, &c->x_cap, (size_t)(x.rows * x.cols), sizeof *c->x, "activations");
    b->download(c->x, x.data, (size_t)x.rows * x.row_bytes);
    if (n_chosen) {
        mem_grow((void **)&c->chosen, &c->chosen_cap, (size_t)n_chosen, sizeof *c->chosen, "chosen experts");
        b->download(c->chosen, chosen, (size_t)n_chosen * sizeof *chosen);
        for (int64_t i = 0; i < n_chosen; i++) e->count[c->chosen[i]]++;
    } else {
        e->count[0] += (double)x.rows;
    }
    pool_for(x.cols, 256, add_columns, &q);
}

// One entry for each matrix of a layer as the file has it: parts of a joined one get the same rows.
static struct imatrix *table_of(const struct model *m, int *entry) {
    size_t n = 0;
    for (int i = 0; i < m->n_params; i++) {
        const struct param *p = &m->params[i];
        bool wanted = !strncmp(p->name, "blk.", 4) && !param_is_vector(p) && p->part == 0;
        entry[i] = wanted ? (int)n++ : -1;
    }
    struct imatrix *to = table_new(n);
    for (int i = 0; i < m->n_params; i++) {
        if (entry[i] < 0) continue;
        const struct param *p = &m->params[i];
        struct imatrix_entry *e = &to->entries[entry[i]];
        snprintf(e->name, sizeof e->name, "%s", p->name);
        entry_alloc(e, (size_t)(p->mats * p->cols), (size_t)p->mats);
    }
    return to;
}

struct imatrix *imatrix_collect(const struct model *m, struct session *s, const struct imatrix_text *text,
                                struct err *err) {
    int64_t chunks = text->n / text->chunk;
    assert(text->chunk > 0 && text->chunk <= session_capacity(s));
    if (chunks < 1) {
        err_set(err, "the text for the importance matrix has %lld tokens, but one chunk needs %lld: give more text or a smaller -c",
                (long long)text->n, (long long)text->chunk);
        return NULL;
    }
    struct collector c = {.model = m, .entry = mem_array((size_t)m->n_params, sizeof *c.entry, "entries")};
    struct observer observer = {collect, &c};
    int32_t *ids = mem_array((size_t)text->chunk, sizeof *ids, "chunk");
    bool good = true;
    c.to = table_of(m, c.entry);
    c.to->chunk_tokens = text->chunk;
    session_observe(s, &observer);
    for (int64_t at = 0; good && at < chunks; at++) {
        memcpy(ids, text->ids + at * text->chunk, (size_t)text->chunk * sizeof *ids);
        if (text->bos >= 0) ids[0] = text->bos;
        session_rewind(s, 0);
        good = session_feed(s, ids, text->chunk, FEED_PROMPT, LOGITS_NONE, err) != NULL;
        c.to->chunks++;
        if (text->each) text->each(text->arg, at + 1, chunks);
    }
    session_observe(s, NULL);
    session_rewind(s, 0);
    mem_free(ids);
    mem_free(c.entry);
    mem_free(c.x);
    mem_free(c.chosen);
    if (good && finish(c.to, "importance matrix", err)) return c.to;
    imatrix_free(c.to);
    return NULL;
}

// ---- files

bool imatrix_recognise(const char *path, enum imatrix_kind *kind, struct err *err) {
    struct file_map map;
    uint32_t first = 0;
    if (!file_map_open(&map, path, err)) return false;
    if (map.size >= 4)
        first = (uint32_t)map.data[0] | (uint32_t)map.data[1] << 8 | (uint32_t)map.data[2] << 16 | (uint32_t)map.data[3] << 24;
    *kind = IMATRIX_TEXT;
    if (map.size >= 4 && !memcmp(map.data, "GGUF", 4)) *kind = IMATRIX_GGUF;
    else if (first >= 1 && first <= ENTRIES_MOST) *kind = IMATRIX_LEGACY; // its fourth byte is 0: no text
    else if (map.size && memchr(map.data, 0, map.size)) *kind = IMATRIX_NONE;
    file_map_close(&map);
    return true;
}

// A cursor over the legacy file; the first problem sticks as NULL.
struct bytes {
    const unsigned char *at, *end;
};
static const unsigned char *take(struct bytes *b, size_t n) {
    if (!b->at || (size_t)(b->end - b->at) < n) return b->at = NULL;
    b->at += n;
    return b->at - n;
}
static int64_t take_i32(struct bytes *b) {
    const unsigned char *p = take(b, 4);
    return p ? (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24) : -1;
}

static bool legacy_entry(struct bytes *b, struct imatrix_entry *e, const char *path, struct err *err) {
    int64_t length = take_i32(b);
    if (b->at && (length < 1 || length > NAME_MOST))
        return err_set(err, "%s: a name of %lld bytes, expected 1 to %d", path, (long long)length, NAME_MOST);
    const unsigned char *name = take(b, (size_t)length);
    for (int64_t i = 0; name && i < length; i++)
        if (name[i] <= ' ' || name[i] > '~') return err_set(err, "%s: a name of an entry is no tensor's", path);
    int64_t calls = take_i32(b), values = take_i32(b);
    if (b->at && (values < 1 || calls < 0))
        return err_set(err, "%s: %.*s has %lld values from %lld calls", path, (int)length, name, (long long)values, (long long)calls);
    const unsigned char *p = b->at ? take(b, (size_t)values * 4) : NULL;
    if (!p) return err_set(err, "%s: the file ends inside its entries: it is cut off or no importance matrix", path);
    memcpy(e->name, name, (size_t)length);
    entry_alloc(e, (size_t)values, 1);
    e->count[0] = calls > 0 ? (double)calls : 1; // without calls the values are means
    for (int64_t i = 0; i < values; i++) {
        float x;
        memcpy(&x, p + 4 * i, 4);
        e->sum[i] = (double)x;
    }
    return true;
}

static struct imatrix *open_legacy(const char *path, struct err *err) {
    struct file_map map;
    if (!file_map_open(&map, path, err)) return NULL;
    struct bytes b = {map.data, map.data + map.size};
    int64_t n = take_i32(&b);
    bool good = n >= 1 && (size_t)n <= map.size / 17; // the smallest entry
    if (!good) err_set(err, "%s: %lld entries in %zu bytes: it is cut off or no importance matrix", path, (long long)n, map.size);
    struct imatrix *m = good ? table_new((size_t)n) : NULL;
    for (int64_t i = 0; good && i < n; i++) good = legacy_entry(&b, &m->entries[i], path, err);
    if (good && b.at < b.end) {
        m->chunks = take_i32(&b);
        int64_t length = take_i32(&b);
        const unsigned char *name = length > 0 ? take(&b, (size_t)length) : NULL;
        if (m->chunks < 0) m->chunks = 0;
        if (name) {
            m->dataset = mem_alloc((size_t)length + 1, "name of a text");
            memcpy(m->dataset, name, (size_t)length);
        }
    }
    file_map_close(&map);
    if (good && finish(m, path, err)) return m;
    imatrix_free(m);
    return NULL;
}

static size_t values_of(const struct file_tensor *t) { return t->bytes / sizeof(float); }

// The entry that NAME.in_sum2 and NAME.counts make.
static bool gguf_entry(const struct model_file *f, const struct file_tensor *sums, struct imatrix_entry *e, struct err *err) {
    const char *path = model_file_path(f);
    char counts_name[80];
    int n = (int)(strlen(sums->name) - strlen(".in_sum2"));
    snprintf(e->name, sizeof e->name, "%.*s", n, sums->name);
    snprintf(counts_name, sizeof counts_name, "%s.counts", e->name);
    const struct file_tensor *counts = model_file_tensor(f, counts_name);
    if (!counts) return err_set(err, "%s: %s has no %s", path, sums->name, counts_name);
    if (sums->dtype != DTYPE_F32 || counts->dtype != DTYPE_F32)
        return err_set(err, "%s: sums and counts of %s must be F32", path, e->name);
    if (values_of(sums) % values_of(counts) != 0)
        return err_set(err, "%s: %s has %zu sums, no multiple of its %zu counts", path, e->name, values_of(sums), values_of(counts));
    entry_alloc(e, values_of(sums), values_of(counts));
    for (size_t i = 0; i < e->values; i++) e->sum[i] = (double)((const float *)sums->data)[i];
    for (size_t i = 0; i < e->counts; i++) e->count[i] = (double)((const float *)counts->data)[i];
    return true;
}

static bool ends_with(const char *name, const char *with) {
    size_t n = strlen(name), w = strlen(with);
    return n > w && !strcmp(name + n - w, with);
}

static bool gguf_keys(const struct model_file *f, struct imatrix *m, struct err *err) {
    struct meta_array texts;
    struct span first;
    if (!meta_int(f, "imatrix.chunk_count", true, 0, UINT32_MAX, &m->chunks, err) ||
        !meta_int(f, "imatrix.chunk_size", true, 0, UINT32_MAX, &m->chunk_tokens, err) ||
        !meta_array_open(f, "imatrix.datasets", META_TEXT, &texts, err))
        return false;
    if (meta_next_text(&texts, &first)) {
        m->dataset = mem_alloc(first.n + 1, "name of a text");
        memcpy(m->dataset, first.p, first.n);
    }
    return true;
}

static struct imatrix *open_gguf(const char *path, struct err *err) {
    struct model_file *f = model_file_open(path, err);
    struct span type = {0};
    size_t n = 0, at = 0;
    if (!f) return NULL;
    bool good = meta_text(f, "general.type", false, &type, err);
    if (good && !span_is(type, "imatrix")) good = err_set(err, "%s: is a GGUF file, but no importance matrix (general.type is not imatrix)", path);
    for (size_t i = 0; good && i < model_file_tensor_count(f); i++) n += ends_with(model_file_tensor_at(f, i)->name, ".in_sum2");
    if (good && !n) good = err_set(err, "%s: holds no sums (tensors NAME.in_sum2)", path);
    struct imatrix *m = good ? table_new(n) : NULL;
    for (size_t i = 0; good && i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (ends_with(t->name, ".in_sum2")) good = gguf_entry(f, t, &m->entries[at++], err);
    }
    good = good && gguf_keys(f, m, err) && finish(m, path, err);
    model_file_close(f);
    if (good) return m;
    imatrix_free(m);
    return NULL;
}

struct imatrix *imatrix_open(const char *path, struct err *err) {
    enum imatrix_kind kind;
    if (!imatrix_recognise(path, &kind, err)) return NULL;
    if (kind == IMATRIX_GGUF) return open_gguf(path, err);
    if (kind == IMATRIX_LEGACY) return open_legacy(path, err);
    err_set(err, "%s: is no importance matrix: expected llama.cpp's GGUF or .dat format", path);
    return NULL;
}

static void write_floats(struct gguf_out *o, const double *x, size_t n) {
    float *f = mem_array(n, sizeof *f, "values to write");
    for (size_t i = 0; i < n; i++) f[i] = (float)x[i];
    gguf_out_data(o, f, n * sizeof *f);
    mem_free(f);
}

bool imatrix_write(const struct imatrix *m, const char *path, struct err *err) {
    struct gguf_out *o = gguf_out_open(path, err);
    if (!o) return false;
    struct span dataset = {m->dataset ? m->dataset : "", m->dataset ? strlen(m->dataset) : 0};
    gguf_out_text(o, "general.type", "imatrix", strlen("imatrix"));
    gguf_out_texts(o, "imatrix.datasets", &dataset, 1);
    gguf_out_u32(o, "imatrix.chunk_count", (uint32_t)m->chunks);
    gguf_out_u32(o, "imatrix.chunk_size", (uint32_t)m->chunk_tokens);
    for (size_t i = 0; i < m->n; i++) {
        const struct imatrix_entry *e = &m->entries[i];
        char name[96];
        const int64_t mats = (int64_t)e->counts, cols = (int64_t)(e->values / e->counts);
        snprintf(name, sizeof name, "%s.in_sum2", e->name);
        gguf_out_tensor(o, name, DTYPE_F32, 2, (int64_t[4]){mats, cols});
        snprintf(name, sizeof name, "%s.counts", e->name);
        gguf_out_tensor(o, name, DTYPE_F32, 2, (int64_t[4]){mats, 1});
    }
    for (size_t i = 0; i < m->n; i++) {
        write_floats(o, m->entries[i].sum, m->entries[i].values);
        write_floats(o, m->entries[i].count, m->entries[i].counts);
    }
    return gguf_out_commit(o, err);
}
