// session.c: a KV cache and the activations to feed it.
//
// Token t of the text has its keys and values in row t of every layer's cache, so forgetting the end of a text is
// setting a number, and row t attends to cache rows 0..t. A feed longer than `chunk` is cut into passes; since no
// row's result depends on the rows beside it, any cut gives the same bits. Prompt and generated tokens may differ in the
// precision of products, so which is which is the caller's word, not a matter of how many come at once.
//
// All device memory is one block: cache, activations of one layer for `chunk` rows, logits. Nothing is allocated by a
// feed, and what a feed never reaches of the cache is never touched: a long context costs memory as it fills.
#include "model/internal.h"

#include <math.h>

struct session {
    const struct model *m;
    struct model *to_settle; // the same
    int64_t ctx, chunk, logit_rows, length;
    bool exact, fed;
    void *block;                     // everything below that lies on the device
    struct tensor *cache_k, *cache_v; // [L] of [ctx,G*D]
    struct layer_acts layer;
    struct acts acts;
    struct tensor logits;            // [logit_rows,V]
    int32_t *ids, *pos, *lo, *hi;    // [chunk]; a row's place in the cache is its position
    int32_t *lo_local;               // [chunk], for layers with a window
    float *rope_freq;                // [rotated/2], where they depend on the context; else NULL
    float *q_scale, *host_q_scale;   // [chunk], where queries grow with the position; else NULL
    int32_t *host_pos, *host_hi, *host_lo; // [chunk] host
    float *host_logits;              // [logit_rows,V] host
    const struct observer *observer; // NULL most of the time
};

// Rows of a pass: what a weight costs to fetch and take apart is shared by all of them, but activations that caches do not
// hold cost, too. 2048 rows read a prompt of 2048 a fifth faster than 512 (135M parameters, Q8_0; 1B: 9%).
static int64_t rows_of_pass(const struct session *s, const struct model_config *c) {
    enum { MOST = 2048, LEAST = 512 };
    static const size_t ACTS_BYTES = 128u << 20;
    struct acts a = s->acts;
    for (int64_t rows = MOST; rows > LEAST; rows /= 2) {
        struct slab bytes = {0};
        acts_place(&a, c, rows, false, &bytes);
        if (!bytes.too_big && bytes.used <= ACTS_BYTES) return rows;
    }
    return LEAST;
}

static void plan(struct session *s, const struct model *m, const struct session_options *o) {
    s->m = m;
    s->ctx = o->ctx ? o->ctx : m->config.ctx;
    s->acts.layer = &s->layer;
    s->chunk = o->chunk ? o->chunk : rows_of_pass(s, &m->config);
    if (s->chunk > s->ctx) s->chunk = s->ctx;
    s->logit_rows = o->all_logits > 1 ? o->all_logits : 1;
    s->exact = o->exact;
}

static enum dtype values_dtype(const struct session_options *o) { return o->values ? *o->values : o->kv; }

static struct tensor cache_tensor(const struct session *s, enum dtype dtype, struct slab *slab) {
    const struct model_config *c = &s->m->config;
    int64_t rows = (s->ctx + CACHE_ROWS - 1) / CACHE_ROWS * CACHE_ROWS;
    struct tensor t = slab_tensor(slab, dtype, rows, c->G * c->D);
    t.layout = LAYOUT_DEVICE;
    return t;
}

static void place(struct session *s, const struct session_options *o, struct slab *slab) {
    const struct model_config *c = &s->m->config;
    for (int64_t l = 0; l < c->L; l++) {
        s->cache_k[l] = cache_tensor(s, o->kv, slab);
        s->cache_v[l] = cache_tensor(s, values_dtype(o), slab);
    }
    acts_place(&s->acts, c, s->chunk, false, slab);
    s->logits = slab_tensor(slab, DTYPE_F32, s->logit_rows, c->V);
    int32_t **ints[] = {&s->ids, &s->pos, &s->lo, &s->hi, &s->lo_local};
    for (size_t i = 0; i < COUNT_OF(ints); i++) *ints[i] = slab_take(slab, s->chunk, sizeof(int32_t));
    if (c->temperature > 0) s->q_scale = slab_take(slab, s->chunk, sizeof(float));
    if (config_rope_by_context(c)) s->rope_freq = slab_take(slab, config_rotated(c) / 2, sizeof(float));
}

static void take_tables(struct session *s) {
    size_t L = (size_t)s->m->config.L;
    s->cache_k = mem_array(L, sizeof *s->cache_k, "cache table");
    s->cache_v = mem_array(L, sizeof *s->cache_v, "cache table");
}

size_t session_cache_bytes(const struct model *m, const struct session_options *o) {
    struct session s = {0};
    struct slab slab = {0};
    plan(&s, m, o);
    for (int64_t l = 0; l < m->config.L; l++) {
        cache_tensor(&s, o->kv, &slab);
        cache_tensor(&s, values_dtype(o), &slab);
    }
    return slab.too_big ? SIZE_MAX : slab.used;
}

size_t session_bytes(const struct model *m, const struct session_options *o) {
    struct session s = {0};
    struct slab slab = {0};
    plan(&s, m, o);
    take_tables(&s);
    place(&s, o, &slab);
    mem_free(s.cache_k);
    mem_free(s.cache_v);
    size_t host = 4 * sizeof(int32_t) * (size_t)s.chunk, logits, bytes;
    if (slab.too_big || !size_mul((size_t)s.logit_rows * sizeof(float), (size_t)m->config.V, &logits) ||
        !size_add(slab.used, host, &bytes) || !size_add(bytes, logits, &bytes))
        return SIZE_MAX;
    return bytes;
}

static bool check_cache(const struct model *m, enum dtype kv, struct err *err) {
    const struct backend *b = m->backend;
    if ((unsigned)kv >= DTYPE_COUNT || !b->supports(OP_STORE_ROWS, kv) || !b->supports(OP_ATTEND, kv))
        return err_set(err, "a cache of %s is not possible on the %s backend, expected F32, F16, BF16, Q8_0 or Q4_0",
                       (unsigned)kv < DTYPE_COUNT ? dtype_row(kv)->name : "an unknown type", b->name);
    if (m->config.D % dtype_row(kv)->block_weights)
        return err_set(err, "a cache of %s keeps blocks of %d numbers of a head, but a head of this model has %lld: use F16",
                       dtype_row(kv)->name, dtype_row(kv)->block_weights, (long long)m->config.D);
    return true;
}

static bool check_options(const struct model *m, const struct session_options *o, struct err *err) {
    if (o->ctx < 0 || o->ctx > 1 << 30)
        return err_set(err, "a context of %lld tokens is out of range", (long long)o->ctx);
    if (o->chunk < 0 || o->chunk > 1 << 24 || o->all_logits < 0 || o->all_logits > 1 << 24)
        return err_set(err, "chunks of %lld rows with %lld rows of logits are out of range", (long long)o->chunk,
                       (long long)o->all_logits);
    if (!check_cache(m, o->kv, err) || !check_cache(m, values_dtype(o), err)) return false;
    if (m->positions >= 0 && o->ctx > m->config.ctx)
        return err_set(err, "a context of %lld tokens is not possible: this model has learned %lld positions",
                       (long long)o->ctx, (long long)m->config.ctx);
    return true;
}

static void upload_rope(struct session *s) {
    const struct model_config *c = &s->m->config;
    if (!s->rope_freq) return;
    size_t pairs = (size_t)config_rotated(c) / 2;
    float *freq = mem_array(pairs, sizeof *freq, "rope frequencies");
    rope_frequencies(c, false, s->m->rope_divisors, s->ctx, freq);
    s->m->backend->upload(s->rope_freq, freq, pairs * sizeof *freq);
    mem_free(freq);
}

struct session *session_new(struct model *m, const struct session_options *o, struct err *err) {
    static_assert(DTYPE_F32 == 0, "options left at zero ask for an F32 cache");
    if (!check_options(m, o, err)) return NULL;
    struct session *s = mem_alloc(sizeof *s, "session");
    struct slab slab = {0};
    s->to_settle = m;
    plan(s, m, o);
    take_tables(s);
    place(s, o, &slab);
    if (slab.too_big || session_bytes(m, o) == SIZE_MAX)
        err_set(err, "a context of %lld tokens does not fit in an address space", (long long)s->ctx);
    else s->block = m->backend->alloc(slab.used, "cache and activations of a session", err);
    if (!s->block) {
        session_free(s);
        return NULL;
    }
    slab = (struct slab){.base = s->block};
    place(s, o, &slab); // lo stays zero: every row sees the whole text before it
    upload_rope(s);
    s->host_pos = mem_array((size_t)s->chunk, sizeof *s->host_pos, "positions");
    s->host_hi = mem_array((size_t)s->chunk, sizeof *s->host_hi, "row ranges");
    s->host_lo = mem_array((size_t)s->chunk, sizeof *s->host_lo, "row ranges");
    if (m->config.temperature > 0) s->host_q_scale = mem_array((size_t)s->chunk, sizeof(float), "scales of queries");
    s->host_logits = mem_array((size_t)(s->logit_rows * m->config.V), sizeof *s->host_logits, "logits");
    return s;
}

void session_free(struct session *s) {
    if (!s) return;
    if (s->block) s->m->backend->free(s->block);
    mem_free(s->cache_k);
    mem_free(s->cache_v);
    mem_free(s->host_pos);
    mem_free(s->host_hi);
    mem_free(s->host_lo);
    mem_free(s->host_q_scale);
    mem_free(s->host_logits);
    mem_free(s);
}

int64_t session_length(const struct session *s) { return s->length; }
int64_t session_capacity(const struct session *s) { return s->ctx; }
int64_t session_vocab(const struct session *s) { return s->m->config.V; }

void session_observe(struct session *s, const struct observer *o) { s->observer = o; }

bool session_settle(struct session *s, struct err *err) { return model_settle(s->to_settle, err); }

void session_rewind(struct session *s, int64_t length) {
    assert(length >= 0 && length <= s->length);
    s->length = length;
}

// Rows first .. first + count of the pass to rows `to` .. of the logits. They are exact for prompts too: a choice hangs
// on them, and a matrix unit gains nothing from the one row that is asked for.
static void logits_of(struct session *s, int64_t first, int64_t count, int64_t to) {
    struct tensor x = tensor_rows(s->acts.out, first, count), normed = tensor_rows(s->acts.norm, 0, count);
    model_head(s->m, tensor_rows(s->logits, to, count), normed, x, 1 / s->m->config.logit_divisor,
               PRECISION_F32);
}

static void feed_chunk(struct session *s, const int32_t *ids, int64_t n, enum precision precision) {
    const struct backend *b = s->m->backend;
    int64_t window = s->m->config.window;
    for (int64_t i = 0; i < n; i++) {
        s->host_pos[i] = (int32_t)(s->length + i);
        s->host_hi[i] = (int32_t)(s->length + i + 1);
        s->host_lo[i] = (int32_t)(window > 0 && s->length + i + 1 > window ? s->length + i + 1 - window : 0);
    }
    for (int64_t i = 0; i < n && s->q_scale; i++)
        s->host_q_scale[i] = 1 + s->m->config.temperature * logf(1 + (float)((s->length + i) / s->m->config.rope_ctx));
    size_t bytes = (size_t)n * sizeof(int32_t);
    if (s->q_scale) b->upload(s->q_scale, s->host_q_scale, (size_t)n * sizeof(float));
    b->upload(s->ids, ids, bytes);
    b->upload(s->pos, s->host_pos, bytes);
    b->upload(s->hi, s->host_hi, bytes);
    b->upload(s->lo_local, s->host_lo, bytes);
    model_forward(s->m, &(struct pass){.n = n, .ids = s->ids, .pos = s->pos, .lo = s->lo, .hi = s->hi,
                                       .lo_local = s->lo_local, .rope_freq = s->rope_freq, .q_scale = s->q_scale,
                                       .kv_rows = s->pos, .cache_k = s->cache_k, .cache_v = s->cache_v,
                                       .acts = &s->acts, .precision = precision, .observer = s->observer});
}

static bool check_feed(const struct session *s, const int32_t *ids, int64_t n, enum logits_wanted want,
                       struct err *err) {
    if (n < 1) return err_set(err, "nothing to feed: %lld tokens", (long long)n);
    if (n > s->ctx - s->length)
        return err_set(err, "the context is full: %lld tokens after %lld, but it holds %lld; use a larger context or"
                            " a shorter text", (long long)n, (long long)s->length, (long long)s->ctx);
    if (want == LOGITS_ALL && n > s->logit_rows)
        return err_set(err, "logits of %lld tokens asked for, but the session keeps %lld rows", (long long)n,
                       (long long)s->logit_rows);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->m->config.V)
            return err_set(err, "token %lld is %d, outside the vocabulary of %lld", (long long)i, ids[i],
                           (long long)s->m->config.V);
    return true;
}

const float *session_feed(struct session *s, const int32_t *ids, int64_t n, enum feed feed, enum logits_wanted want,
                          struct err *err) {
    if (!check_feed(s, ids, n, want, err)) return NULL;
    // Weights in the file are packed for every pass that reads them so: once is less than packing them for good.
    if ((s->fed || n > s->chunk) && !session_settle(s, err)) return NULL;
    s->fed = true;
    enum precision precision = feed == FEED_PROMPT && !s->exact ? PRECISION_BF16 : PRECISION_F32;
    const struct backend *b = s->m->backend;
    for (int64_t at = 0; at < n; at += s->chunk) {
        int64_t rows = n - at < s->chunk ? n - at : s->chunk;
        if (!s->observer) b->begin(); // what is looked at in between cannot be captured and replayed
        feed_chunk(s, ids + at, rows, precision);
        if (want == LOGITS_ALL) logits_of(s, 0, rows, at);
        if (want == LOGITS_LAST && at + rows == n) logits_of(s, rows - 1, 1, 0);
        if (!s->observer) b->end();
        s->length += rows;
    }
    int64_t kept = want == LOGITS_ALL ? n : want == LOGITS_LAST ? 1 : 0;
    if (kept) b->download(s->host_logits, s->logits.data, (size_t)kept * s->logits.row_bytes);
    return s->host_logits;
}
