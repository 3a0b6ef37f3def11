// streams.c: several texts at once, one row of a pass each.
//
// Decoding reads all weights for one row. Here the rows of a pass belong to different texts, each with a stretch of its own of
// one cache, and a row sees its own stretch alone (lo, hi of a pass), so that so many texts cost little more than one.
// Stretches begin at multiples of CACHE_ROWS: a row's sums over keys are cut as in a session that holds its text alone, and
// since no row's result depends on the rows beside it, its logits have the bits that session_feed gives for the
// same text, token by token. The caches are F16, as in ./run: those of 16 texts do not stay near the processor, and what is
// read of them for a step is as much as the weights (135M parameters).
#include "model/internal.h"

#include <math.h>

struct streams {
    struct model *m;
    int64_t count, length, stretch; // texts; rows of each; rows of the cache from one to the next
    int64_t *used, *from;           // [count] rows written, and the one with which the text at hand begins
    void *block;                    // everything below that lies on the device
    struct tensor *cache_k, *cache_v; // [L] of [count*stretch,G*D]
    struct layer_acts layer;
    struct acts acts;
    struct tensor logits;           // [count,V]
    int32_t *ids, *pos, *lo, *lo_local, *hi, *row, *target; // [count]; target: zeros
    float *loss;                    // [count]
    float *q_scale, *rope_freq;     // as in a session
    int32_t *host_int;              // [count]
    float *host_q_scale, *host;     // [count], [count,V]
};

static void place(struct streams *s, struct slab *slab) {
    const struct model_config *c = &s->m->config;
    for (int64_t l = 0; l < c->L; l++) {
        s->cache_k[l] = slab_tensor(slab, DTYPE_F16, s->count * s->stretch, c->G * c->D);
        s->cache_v[l] = slab_tensor(slab, DTYPE_F16, s->count * s->stretch, c->G * c->D);
        s->cache_k[l].layout = s->cache_v[l].layout = LAYOUT_DEVICE;
    }
    acts_place(&s->acts, c, s->count, false, slab);
    s->logits = slab_tensor(slab, DTYPE_F32, s->count, c->V);
    int32_t **ints[] = {&s->ids, &s->pos, &s->lo, &s->lo_local, &s->hi, &s->row, &s->target};
    for (size_t i = 0; i < COUNT_OF(ints); i++) *ints[i] = slab_take(slab, s->count, sizeof(int32_t));
    s->loss = slab_take(slab, s->count, sizeof(float));
    if (c->temperature > 0) s->q_scale = slab_take(slab, s->count, sizeof(float));
    if (config_rope_by_context(c)) s->rope_freq = slab_take(slab, config_rotated(c) / 2, sizeof(float));
}

// As in a session of the length that the model was made for, which is what it is mostly run with.
static void upload_rope(struct streams *s) {
    const struct model_config *c = &s->m->config;
    if (!s->rope_freq) return;
    size_t pairs = (size_t)config_rotated(c) / 2;
    float *freq = mem_array(pairs, sizeof *freq, "rope frequencies");
    rope_frequencies(c, false, s->m->rope_divisors, c->ctx, freq);
    s->m->backend->upload(s->rope_freq, freq, pairs * sizeof *freq);
    mem_free(freq);
}

struct streams *streams_new(struct model *m, int64_t count, int64_t length, struct err *err) {
    assert(count > 0 && length > 0);
    if (!model_settle(m, err)) return NULL;
    struct streams *s = mem_alloc(sizeof *s, "texts at once");
    struct slab slab = {0};
    const size_t L = (size_t)m->config.L;
    s->m = m, s->count = count, s->length = length;
    s->stretch = (length + CACHE_ROWS - 1) / CACHE_ROWS * CACHE_ROWS;
    s->acts.layer = &s->layer;
    s->cache_k = mem_array(L, sizeof *s->cache_k, "cache table");
    s->cache_v = mem_array(L, sizeof *s->cache_v, "cache table");
    place(s, &slab);
    if (slab.too_big) err_set(err, "%lld texts of %lld tokens do not fit in an address space", (long long)count, (long long)length);
    else s->block = m->backend->alloc(slab.used, "caches of several texts", err);
    if (!s->block) {
        streams_free(s);
        return NULL;
    }
    slab = (struct slab){.base = s->block};
    place(s, &slab);
    upload_rope(s);
    s->used = mem_array((size_t)count, sizeof *s->used, "lengths of texts");
    s->from = mem_array((size_t)count, sizeof *s->from, "lengths of texts");
    s->host_int = mem_array((size_t)count, sizeof *s->host_int, "rows of a pass");
    if (s->q_scale) s->host_q_scale = mem_array((size_t)count, sizeof(float), "scales of queries");
    s->host = mem_array((size_t)(count * m->config.V), sizeof *s->host, "probabilities");
    return s;
}

void streams_free(struct streams *s) {
    if (!s) return;
    if (s->block) s->m->backend->free(s->block);
    mem_free(s->cache_k);
    mem_free(s->cache_v);
    mem_free(s->used);
    mem_free(s->from);
    mem_free(s->host_int);
    mem_free(s->host_q_scale);
    mem_free(s->host);
    mem_free(s);
}

void streams_clear(struct streams *s) {
    for (int64_t i = 0; i < s->count; i++) s->used[i] = s->from[i] = 0;
}

void streams_begin(struct streams *s, int64_t text) { s->from[text] = s->used[text]; }

// What each row sees and where it goes.
static void upload_rows(struct streams *s) {
    enum { POS, LO, LO_LOCAL, HI, ROW, KINDS };
    const struct model_config *c = &s->m->config;
    int32_t *const to[KINDS] = {[POS] = s->pos, [LO] = s->lo, [LO_LOCAL] = s->lo_local, [HI] = s->hi, [ROW] = s->row};
    for (int kind = 0; kind < KINDS; kind++) {
        for (int64_t i = 0; i < s->count; i++) {
            const int64_t row = i * s->stretch + s->used[i], from = i * s->stretch + s->from[i];
            const int64_t near = c->window > 0 && row + 1 - c->window > from ? row + 1 - c->window : from;
            s->host_int[i] = (int32_t)(const int64_t[KINDS]){row - from, from, near, row + 1, row}[kind];
        }
        s->m->backend->upload(to[kind], s->host_int, (size_t)s->count * sizeof(int32_t));
    }
    for (int64_t i = 0; i < s->count && s->q_scale; i++)
        s->host_q_scale[i] = 1 + c->temperature * logf(1 + (float)((s->used[i] - s->from[i]) / c->rope_ctx));
    if (s->q_scale) s->m->backend->upload(s->q_scale, s->host_q_scale, (size_t)s->count * sizeof(float));
}

// The row of logits z as softmax(z), by the gradient of a loss whose target is token 0 (backend.h), which is softmax(z) but
// for the 1 that is taken from token 0.
static void to_probabilities(struct streams *s) {
    const struct backend *b = s->m->backend;
    b->cross_entropy(&(struct cross_entropy_args){.loss = s->loss, .logits = s->logits, .targets = s->target, .grad_scale = 1});
    b->download(s->host, s->logits.data, (size_t)s->count * s->logits.row_bytes);
    for (int64_t i = 0; i < s->count; i++) s->host[i * s->m->config.V] += 1;
}

const float *streams_feed(struct streams *s, const int32_t *ids, bool chances) {
    const struct model *m = s->m;
    const struct backend *b = m->backend;
    for (int64_t i = 0; i < s->count; i++) assert(s->used[i] < s->length && ids[i] >= 0 && ids[i] < m->config.V);
    b->upload(s->ids, ids, (size_t)s->count * sizeof *ids);
    upload_rows(s);
    b->begin(0);
    model_forward(m, &(struct pass){.n = s->count, .ids = s->ids, .pos = s->pos, .lo = s->lo, .hi = s->hi, .lo_local = s->lo_local,
                                    .rope_freq = s->rope_freq, .q_scale = s->q_scale, .kv_rows = s->row, .cache_k = s->cache_k,
                                    .cache_v = s->cache_v, .acts = &s->acts, .precision = PRECISION_F32});
    model_head(m, s->logits, s->acts.norm, s->acts.out, 1 / m->config.logit_divisor, PRECISION_F32);
    b->end();
    for (int64_t i = 0; i < s->count; i++) s->used[i]++;
    if (chances) to_probabilities(s);
    else b->download(s->host, s->logits.data, (size_t)s->count * s->logits.row_bytes);
    return s->host;
}
