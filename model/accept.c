// accept.c: see accept.h.
#include "model/accept.h"

#include <math.h>
#include <string.h>

static const char key_blocks[] = "lehr.accept.blocks", key_weights[] = "lehr.accept.weights";

struct accept *accept_new(int64_t C, int blocks) {
    assert(C > 0 && blocks >= 0 && blocks <= ACCEPT_BLOCKS_MOST);
    struct accept *a = mem_alloc(sizeof *a, "acceptance head");
    *a = (struct accept){C, blocks, mem_array(accept_count(C, blocks), sizeof *a->weights, "acceptance head")};
    return a;
}

void accept_free(struct accept *a) {
    if (!a) return;
    mem_free(a->weights);
    mem_free(a);
}

// In lanes, which a compiler makes vectors of, and in a fixed order.
static float dot(const float *a, const float *b, int64_t n) {
    enum { LANES = 16 };
    float sum[LANES] = {0}, all = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) sum[k] += a[i + k] * b[i + k];
    for (; i < n; i++) sum[0] += a[i] * b[i];
    for (int k = 0; k < LANES; k++) all += sum[k];
    return all;
}

void accept_block(const struct accept *a, int i, const float *x, float *z, float *out) {
    const float *w = a->weights + (int64_t)i * a->C * a->C;
    for (int64_t r = 0; r < a->C; r++) {
        const float t = dot(w + r * a->C, x, a->C);
        if (z) z[r] = t;
        out[r] = x[r] + t / (1 + expf(-t));
    }
}

float accept_logit(const struct accept *a, const float *x) {
    const float *u = a->weights + (int64_t)a->blocks * a->C * a->C;
    return dot(u, x, a->C) + u[a->C];
}

float accept_chance(const struct accept *a, const float *hidden, float *room) {
    const float *x = hidden;
    for (int i = 0; i < a->blocks; i++) {
        float *out = room + (i % 2) * a->C;
        accept_block(a, i, x, NULL, out);
        x = out;
    }
    return 1 / (1 + expf(-accept_logit(a, x)));
}

void accept_write(const struct accept *a, struct gguf_out *o) {
    gguf_out_u32(o, key_blocks, (uint32_t)a->blocks);
    gguf_out_f32s(o, key_weights, a->weights, accept_count(a->C, a->blocks));
}

bool accept_read(const struct model_file *f, int64_t C, struct accept **a, struct err *err) {
    struct meta_array array;
    int64_t blocks;
    double x = 0;
    *a = NULL;
    if (meta_kind(f, key_weights) == META_ABSENT) return true;
    if (!meta_int(f, key_blocks, true, 0, ACCEPT_BLOCKS_MOST, &blocks, err) || !meta_array_open(f, key_weights, META_REAL, &array, err)) return false;
    const size_t n = accept_count(C, (int)blocks);
    if (array.count != n)
        return err_set(err, "%s has %llu numbers, expected %zu for %lld blocks of a model of %lld channels", key_weights, (unsigned long long)array.count, n,
                       (long long)blocks, (long long)C);
    *a = accept_new(C, (int)blocks);
    for (size_t i = 0; i < n && meta_next_real(&array, &x); i++) {
        (*a)->weights[i] = (float)x;
        if (isfinite((*a)->weights[i])) continue;
        accept_free(*a);
        *a = NULL;
        return err_set(err, "number %zu of %s is not finite", i, key_weights);
    }
    return true;
}
