// session.c: a KV cache and the activations to feed it.
//
// Token t of the text has its keys and values in row t of every layer's cache, so forgetting the end of a text is
// setting a number, and row t attends to cache rows 0..t. A feed longer than `chunk` is cut into passes; since no
// row's result depends on the rows beside it, any cut gives the same bits. Prompt and generated tokens may differ in the
// precision of products, so which is which is the caller's word, not a matter of how many come at once.
//
// A tree of guesses is one pass, too. Its nodes come in preorder, and a node is stored in row length + depth, where a sibling or a
// cousin may have been before it: so what leads to a node lies in the rows before its own, as it does for a text, if
// nodes are stored and attended in turn. Everything but that is done for all nodes at once, and that for a run of nodes, each the
// child of the one before, at a time. Keys and values are kept beside the cache, unrounded, so that a path that later
// runs have overwritten can be stored again when it becomes the text. A tree that is one run is a plain pass.
//
// All device memory is one block: cache, activations of one layer for `chunk` rows, logits. Nothing is allocated by a
// feed, and what a feed never reaches of the cache is never touched: a long context costs memory as it fills.
#include "model/internal.h"

#include <math.h>
#include <string.h>

struct session {
    const struct model *m;
    struct model *to_settle; // the same
    int64_t ctx, chunk, logit_rows, length;
    bool exact, fed, hidden;
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
    float *host_hidden;              // [logit_rows,C] host, where asked for; else NULL
    int32_t *text;                   // [ctx] host: the ids in the cache
    int64_t tree;                    // nodes there is room for
    struct tensor *beside_k, *beside_v; // [L] of [tree,G*D] f32
    int32_t *node_id, *node_parent;  // [tree] host: the tree fed last, while host_pos holds its positions
    int64_t *runs;                   // [tree] host: rows of its runs
    int64_t nodes;                   // 0: no tree can be taken
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
    s->tree = o->tree;
    if (s->chunk < s->tree) s->chunk = s->tree;
    if (s->logit_rows < s->tree) s->logit_rows = s->tree;
    s->exact = o->exact;
    s->hidden = o->hidden;
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
    for (int64_t l = 0; l < c->L && s->tree > 0; l++) {
        s->beside_k[l] = slab_tensor(slab, DTYPE_F32, s->tree, c->G * c->D);
        s->beside_v[l] = slab_tensor(slab, DTYPE_F32, s->tree, c->G * c->D);
    }
    acts_place(&s->acts, c, s->chunk, false, slab);
    s->logits = slab_tensor(slab, DTYPE_F32, s->logit_rows, c->V);
    int32_t **ints[] = {&s->ids, &s->pos, &s->lo, &s->hi, &s->lo_local};
    for (size_t i = 0; i < COUNT_OF(ints); i++) *ints[i] = slab_take(slab, s->chunk, sizeof(int32_t));
    if (c->temperature > 0) s->q_scale = slab_take(slab, s->chunk, sizeof(float));
    if (config_rope_by_context(c)) s->rope_freq = slab_take(slab, config_rotated(c) / 2, sizeof(float));
}

static void take_tables(struct session *s) {
    struct tensor **tables[] = {&s->cache_k, &s->cache_v, &s->beside_k, &s->beside_v};
    for (size_t i = 0; i < COUNT_OF(tables); i++)
        *tables[i] = mem_array((size_t)s->m->config.L, sizeof **tables[i], "cache table");
}
static void free_tables(struct session *s) {
    mem_free(s->cache_k);
    mem_free(s->cache_v);
    mem_free(s->beside_k);
    mem_free(s->beside_v);
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
    free_tables(&s);
    size_t host = sizeof(int32_t) * (4 * (size_t)s.chunk + (size_t)s.ctx + 4 * (size_t)s.tree), logits, bytes;
    size_t row = (size_t)m->config.V + (s.hidden ? (size_t)m->config.C : 0);
    if (slab.too_big || !size_mul((size_t)s.logit_rows * sizeof(float), row, &logits) ||
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
    enum { MOST = 1 << 24 };
    if (o->chunk < 0 || o->chunk > MOST || o->all_logits < 0 || o->all_logits > MOST || o->tree < 0 || o->tree > MOST)
        return err_set(err, "chunks of %lld rows with %lld rows of logits and trees of %lld nodes are out of range",
                       (long long)o->chunk, (long long)o->all_logits, (long long)o->tree);
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
    if (s->hidden) s->host_hidden = mem_array((size_t)(s->logit_rows * m->config.C), sizeof *s->host_hidden, "what the head read");
    s->text = mem_array((size_t)s->ctx, sizeof *s->text, "text"); // zeros, which take no memory before they are written
    s->node_id = mem_array((size_t)s->tree, sizeof *s->node_id, "tree");
    s->node_parent = mem_array((size_t)s->tree, sizeof *s->node_parent, "tree");
    s->runs = mem_array((size_t)s->tree, sizeof *s->runs, "tree");
    return s;
}

void session_free(struct session *s) {
    if (!s) return;
    s->m->backend->forget();
    if (s->block) s->m->backend->free(s->block);
    free_tables(s);
    mem_free(s->host_pos);
    mem_free(s->host_hi);
    mem_free(s->host_lo);
    mem_free(s->host_q_scale);
    mem_free(s->host_logits);
    mem_free(s->host_hidden);
    mem_free(s->text);
    mem_free(s->node_id);
    mem_free(s->node_parent);
    mem_free(s->runs);
    mem_free(s);
}

int64_t session_length(const struct session *s) { return s->length; }
int64_t session_capacity(const struct session *s) { return s->ctx; }
int64_t session_vocab(const struct session *s) { return s->m->config.V; }
int64_t session_width(const struct session *s) { return s->m->config.C; }
const int32_t *session_ids(const struct session *s) { return s->text; }

const float *session_hidden(const struct session *s) {
    assert(s->hidden);
    return s->host_hidden;
}

void session_observe(struct session *s, const struct observer *o) { s->observer = o; }

bool session_settle(struct session *s, struct err *err) { return model_settle(s->to_settle, err); }

void session_rewind(struct session *s, int64_t length) {
    assert(length >= 0 && length <= s->length);
    s->length = length;
    s->nodes = 0;
}

// Rows first .. first + count of the pass to rows `to` .. of the logits. They are exact for prompts too: a choice hangs
// on them, and a matrix unit gains nothing from the one row that is asked for.
static void logits_of(struct session *s, int64_t first, int64_t count, int64_t to) {
    struct tensor x = tensor_rows(s->acts.out, first, count), normed = tensor_rows(s->acts.norm, 0, count);
    model_head(s->m, tensor_rows(s->logits, to, count), normed, x, 1 / s->m->config.logit_divisor,
               PRECISION_F32);
}

// What logits_of left of so many rows.
static void download_hidden(struct session *s, int64_t to, int64_t count) {
    s->m->backend->download(s->host_hidden + to * s->m->config.C, s->acts.norm.data, (size_t)count * s->acts.norm.row_bytes);
}

// The n rows of a pass, whose positions host_pos holds; and the pass, in one run or `runs`.
static void upload_rows(struct session *s, const int32_t *ids, int64_t n) {
    const struct backend *b = s->m->backend;
    int64_t window = s->m->config.window;
    for (int64_t i = 0; i < n; i++) {
        int64_t end = s->host_pos[i] + 1;
        s->host_hi[i] = (int32_t)end;
        s->host_lo[i] = (int32_t)(window > 0 && end > window ? end - window : 0);
    }
    for (int64_t i = 0; i < n && s->q_scale; i++)
        s->host_q_scale[i] = 1 + s->m->config.temperature * logf(1 + (float)(s->host_pos[i] / s->m->config.rope_ctx));
    size_t bytes = (size_t)n * sizeof(int32_t);
    if (s->q_scale) b->upload(s->q_scale, s->host_q_scale, (size_t)n * sizeof(float));
    b->upload(s->ids, ids, bytes);
    b->upload(s->pos, s->host_pos, bytes);
    b->upload(s->hi, s->host_hi, bytes);
    b->upload(s->lo_local, s->host_lo, bytes);
}

static void forward_rows(struct session *s, int64_t n, enum precision precision, const int64_t *runs) {
    model_forward(s->m, &(struct pass){.n = n, .ids = s->ids, .pos = s->pos, .lo = s->lo, .hi = s->hi,
                                       .lo_local = s->lo_local, .rope_freq = s->rope_freq, .q_scale = s->q_scale,
                                       .kv_rows = s->pos, .cache_k = s->cache_k, .cache_v = s->cache_v, .runs = runs,
                                       .beside_k = runs ? s->beside_k : NULL, .beside_v = runs ? s->beside_v : NULL,
                                       .acts = &s->acts, .precision = precision, .observer = s->observer});
}

static bool check_ids(const struct session *s, const int32_t *ids, int64_t n, struct err *err) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->m->config.V)
            return err_set(err, "token %lld is %d, outside the vocabulary of %lld", (long long)i, ids[i],
                           (long long)s->m->config.V);
    return true;
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
    return check_ids(s, ids, n, err);
}

// A backend may keep passes of a few rows, of which a text has many (backend.h, begin); 0: not this one.
static uint64_t pass_key(const struct session *s, int64_t rows, enum precision precision, enum logits_wanted want) {
    enum { FEW = 16 };
    if (rows > FEW || s->observer) return 0;
    const uint64_t what[] = {(uint64_t)(uintptr_t)s, (uint64_t)rows, (uint64_t)precision, (uint64_t)want};
    return hash_bytes(1, what, sizeof what) | 1;
}

const float *session_feed(struct session *s, const int32_t *ids, int64_t n, enum feed feed, enum logits_wanted want,
                          struct err *err) {
    if (!check_feed(s, ids, n, want, err)) return NULL;
    // Weights in the file are packed for every pass that reads them so: once is less than packing them for good.
    if ((s->fed || n > s->chunk) && !session_settle(s, err)) return NULL;
    s->fed = true;
    s->nodes = 0;
    enum precision precision = feed == FEED_PROMPT && !s->exact ? PRECISION_BF16 : PRECISION_F32;
    const struct backend *b = s->m->backend;
    for (int64_t at = 0; at < n; at += s->chunk) {
        int64_t rows = n - at < s->chunk ? n - at : s->chunk;
        for (int64_t i = 0; i < rows; i++) s->host_pos[i] = (int32_t)(s->length + i);
        upload_rows(s, ids + at, rows);
        if (!b->begin(rows == n ? pass_key(s, rows, precision, want) : 0)) {
            forward_rows(s, rows, precision, NULL);
            if (want == LOGITS_ALL) logits_of(s, 0, rows, at);
            if (want == LOGITS_LAST && at + rows == n) logits_of(s, rows - 1, 1, 0);
            b->end();
        }
        if (s->hidden && want == LOGITS_ALL) download_hidden(s, at, rows);
        if (s->hidden && want == LOGITS_LAST && at + rows == n) download_hidden(s, 0, 1);
        memmove(s->text + s->length, ids + at, (size_t)rows * sizeof *ids); // ids may be a part of text
        s->length += rows;
    }
    int64_t kept = want == LOGITS_ALL ? n : want == LOGITS_LAST ? 1 : 0;
    if (kept) b->download(s->host_logits, s->logits.data, (size_t)kept * s->logits.row_bytes);
    return s->host_logits;
}

// Depths to host_pos, rows of runs to runs; how many runs there are. False when the deepest path is too long.
static bool tree_plan(struct session *s, const int32_t *parent, int64_t n, int64_t *run_count, struct err *err) {
    *run_count = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t before = i - 1; // an ancestor of i - 1, or itself
        while (before > parent[i]) before = parent[before];
        assert(before == parent[i] && (i == 0 || before >= 0)); // preorder
        int64_t position = i == 0 ? s->length : s->host_pos[parent[i]] + 1;
        if (position >= s->ctx)
            return err_set(err, "the context is full: a path of %lld tokens after %lld, but it holds %lld; use a larger context",
                           (long long)(position - s->length + 1), (long long)s->length, (long long)s->ctx);
        s->host_pos[i] = (int32_t)position;
        if (i == 0 || parent[i] != i - 1) s->runs[(*run_count)++] = 0;
        s->runs[*run_count - 1]++;
    }
    return true;
}

const float *session_feed_tree(struct session *s, const int32_t *ids, const int32_t *parent, int64_t n, struct err *err) {
    const struct backend *b = s->m->backend;
    int64_t runs;
    s->nodes = 0;
    if (n < 1 || n > s->tree) {
        err_set(err, "a tree of %lld nodes, but the session has room for 1 to %lld", (long long)n, (long long)s->tree);
        return NULL;
    }
    if (!check_ids(s, ids, n, err) || !tree_plan(s, parent, n, &runs, err)) return NULL;
    if (s->fed && !session_settle(s, err)) return NULL;
    s->fed = true;
    upload_rows(s, ids, n);
    b->begin(0);
    forward_rows(s, n, PRECISION_F32, runs > 1 ? s->runs : NULL);
    logits_of(s, 0, n, 0);
    b->end();
    b->download(s->host_logits, s->logits.data, (size_t)n * s->logits.row_bytes);
    memcpy(s->node_id, ids, (size_t)n * sizeof *ids);
    memcpy(s->node_parent, parent, (size_t)n * sizeof *parent);
    s->nodes = n;
    return s->host_logits;
}

// The cache's row of node i went to a later node.
static bool node_lost(const struct session *s, int64_t i) {
    for (int64_t j = i + 1; j < s->nodes; j++)
        if (s->host_pos[j] == s->host_pos[i]) return true;
    return false;
}

static void store_again(struct session *s, int64_t node, int64_t n) {
    const struct backend *b = s->m->backend;
    const struct model_config *c = &s->m->config;
    const int32_t *rows = s->pos + node;
    for (int64_t l = 0; l < c->L; l++) {
        struct tensor k = tensor_rows(s->beside_k[l], node, n), v = tensor_rows(s->beside_v[l], node, n);
        b->store_rows(&(struct store_rows_args){s->cache_k[l], k, rows, CACHE_KEYS, c->D});
        b->store_rows(&(struct store_rows_args){s->cache_v[l], v, rows, CACHE_VALUES, c->D});
    }
}

void session_take(struct session *s, const int32_t *node, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        assert(node[i] >= 0 && node[i] < s->nodes && s->node_parent[node[i]] == (i ? node[i - 1] : -1));
        s->text[s->length + i] = s->node_id[node[i]];
    }
    s->m->backend->begin(0);
    for (int64_t i = 0, end; i < n; i = end) { // nodes in a row that were lost are stored together
        end = i + 1;
        if (!node_lost(s, node[i])) continue;
        while (end < n && node[end] == node[end - 1] + 1 && node_lost(s, node[end])) end++;
        store_again(s, node[i], end - i);
    }
    s->m->backend->end();
    s->length += n;
    s->nodes = 0;
}
