// amx_attend.c: attention of PRECISION_BF16 on the matrix units of recent Xeons (AMX-BF16).
//
// Both products are made of tiles, 32 pairs (row, head) of one kv head against a chunk of 256 keys (Dao 2023,
// FlashAttention-2, section 3.1):
//
//   S = Q K^T                      q and k rounded to bf16, sums f32, in L1: 32 KiB
//   m' = max(m, row max of S) ; p = 2^(c (S - m')) , c = scale log2 e ; l = 2^(c (m - m')) l + sum p
//   O = 2^(c (m - m')) O + P V     p and v rounded to bf16; p lies where its scores lay
//
// A piece is a kv head and up to PIECE_PAIRS pairs of neighbouring rows. It takes chunk after chunk: keys and values are
// packed to bf16 in the order of tiles, 64 KiB that stay in L2 for all its pairs, then every 32 pairs pass. Packing
// costs some 5000 cycles a chunk beside 60000 of work (3 heads for a kv head of 64, 128 rows).
//
// A row's numbers are its own: chunks lie at multiples of 256 from row 0 of a cache, or from the first key `lo` where
// rows are keys themselves, so that a document does not depend on its place in the batch; steps of 32 keys begin at multiples
// of 32 in a chunk; a key that a row does not see has p = 0, and adding 0 changes nothing. A row's largest
// score, its sum and what they make of its O hang on its own keys only. So neither batch nor threads nor the cut of
// a prompt into passes changes a bit.
//
// The floor is not the product: 32 x 256 scores take 1024 cycles of tiles, as many for P V, but 512 vectors of sixteen
// exponentials of 6 to 7 cycles each. All in all 0.8 cycles a score with heads of 64.
//
// Backward, for training: the same way with keys as rows (see there). One thread of a busy two-core Xeon, November 2026, T 1024,
// 12 heads of 64: forward 6.5 ms of 19 in f32, backward 17.6 of 40.
//
// What does not fit (heads that are not a multiple of 32 wide, or wider than 256) takes the way of f32.
#include "cpu/cpu.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include "cpu/words_avx512.h"

#include "cpu/kernels_base.h"
#include "cpu/kernels_codes.h"
#include "cpu/kernels_cache.h"
#include "cpu/kernels_exp.h"
#include "cpu/kernels_drop.h"
#include "cpu/words_amx.h"

enum {
    STRIP = 32,             // pairs that are multiplied together
    LINE = KEYS + 16,       // floats from a pair's scores to the next pair's: not all in the same sets of L1
    WIDEST = 256,           // head
    PIECE_PAIRS = 384,
};
static const float UNSEEN = -1e30f; // finite, so that differences are; 2^(c UNSEEN) is 0

struct attend_job {
    const struct attend_args *a;
    const int32_t *first; // row where a piece starts; one more at the end
    int64_t pieces, pairs_most;
};

// One thread's memory, and the piece at hand.
struct work {
    const struct attend_args *a;
    uint16_t *keys;   // [KEYS / 32][D / 32][two tiles]
    uint16_t *values; // [D / 32][KEYS / 32][two tiles]
    uint16_t *rows;   // [32][D] of keys or values as they were
    uint16_t *q;      // [pairs / 32][D / 32][two tiles]
    float *o;         // [pairs][D]
    float *l;         // [pairs][16] lanes of the sum
    float *m;         // [pairs]
    float *scores;    // [32][LINE]
    int64_t row, pairs, g, from; // first row, pairs, kv head; where the chunk begins
    float c;                     // of the exponent
};

static void *take(char *base, size_t *used, size_t bytes) {
    char *at = base ? base + *used : NULL;
    *used += (bytes + 63) & ~(size_t)63;
    return at;
}
// Lays a thread's memory out from base, which may be NULL to learn the size; returns that size.
static size_t work_place(struct work *w, char *base, int64_t pairs, int64_t D) {
    size_t used = 0;
    w->keys = take(base, &used, (size_t)(KEYS * D) * sizeof *w->keys);
    w->values = take(base, &used, (size_t)(KEYS * D) * sizeof *w->values);
    w->rows = take(base, &used, (size_t)(PANEL * D) * sizeof *w->rows);
    w->q = take(base, &used, (size_t)(pairs * D) * sizeof *w->q);
    w->o = take(base, &used, (size_t)(pairs * D) * sizeof *w->o);
    w->l = take(base, &used, (size_t)(pairs * VW) * sizeof *w->l);
    w->m = take(base, &used, (size_t)pairs * sizeof *w->m);
    w->scores = take(base, &used, (size_t)(STRIP * LINE) * sizeof *w->scores);
    return used;
}

// ---------------------------------------------------------------------------------------------------------------
// Keys and values as tiles.

// A panel of 32 keys out of a cache: a term is 32 numbers side by side.
INLINE void keys_pack_as(const enum dtype t, const char *panel, int64_t D, uint16_t *to) {
    for (int64_t d = 0; d < D; d += STEP, to += 2 * TILE)
        for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
            for (int k = 0; k < STEP; k += 2)
                _mm512_store_si512(to + half * TILE + k * VW,
                                   in_pairs(key_load(t, panel, d + k, half * VW),
                                            key_load(t, panel, d + k + 1, half * VW)));
}
// Two neighbouring rows of values out of a cache to their line of each tile, D / 32 panels apart by KEYS * 32.
INLINE void values_pack_as(const enum dtype t, const char *row, size_t next, const float *scales, int64_t D,
                           bool two, uint16_t *to) {
    for (int64_t d = 0; d < D; d += PANEL, to += KEYS * PANEL)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const vf even = value_load(t, row, d + half * VW, scales);
            const vf odd = two ? value_load(t, row + next, d + half * VW, scales + D / QK) : v_zero();
            _mm512_store_si512(to + half * TILE, in_pairs(even, odd));
        }
}
#define PACK_OF(upper, lower)                                                                      \
    static void keys_pack_##lower(const char *panel, int64_t D, uint16_t *to) {                    \
        keys_pack_as(DTYPE_##upper, panel, D, to);                                                 \
    }                                                                                              \
    static void values_pack_##lower(const char *row, size_t next, const float *scales, int64_t D,  \
                                    bool two, uint16_t *to) {                                      \
        values_pack_as(DTYPE_##upper, row, next, scales, D, two, to);                              \
    }
PACK_OF(F32, f32)
PACK_OF(F16, f16)
PACK_OF(BF16, bf16)
PACK_OF(Q8_0, q8_0)
PACK_OF(Q4_0, q4_0)
#define PACK_ROW(upper, lower) [DTYPE_##upper] = {keys_pack_##lower, values_pack_##lower},
static const struct {
    void (*keys)(const char *panel, int64_t D, uint16_t *to);
    void (*values)(const char *row, size_t next, const float *scales, int64_t D, bool two, uint16_t *to);
} packs[DTYPE_COUNT] = {PACK_ROW(F32, f32) PACK_ROW(F16, f16) PACK_ROW(BF16, bf16) PACK_ROW(Q8_0, q8_0)
                            PACK_ROW(Q4_0, q4_0)};

// Rows [j, j + count) of kv head g as bf16, [32][D]; missing rows are zeros.
static void rows_read(const struct tensor *t, int64_t j, int64_t count, int64_t g, int64_t D, uint16_t *to) {
    const struct dtype_row *d = dtype_row(t->dtype);
    float some[WIDEST];
    for (int64_t l = 0; l < count; l++, to += D) {
        const char *from = (const char *)t->data + (size_t)(j + l) * t->row_bytes + numbers_bytes(t->dtype, g * D);
        if (t->dtype == DTYPE_F32) {
            row_to_bf16((const float *)(const void *)from, D, D, to);
            continue;
        }
        d->to_f32(from, some, D);
        row_to_bf16(some, D, D, to);
    }
    memset(to, 0, (size_t)((PANEL - count) * D) * sizeof *to);
}

// 32 rows of bf16 as columns of a right factor: [D / 32][two tiles].
static void rows_to_columns(const uint16_t *rows, int64_t D, uint16_t *to) {
    for (int64_t d = 0; d < D; d += STEP)
        for (int half = 0; half < 2; half++, to += TILE)
            v_transpose((const float *)(const void *)(rows + half * VW * D + d), D / 2, (float *)(void *)to, VW);
}
// The same as 32 terms of a right factor: two tiles for every 32 columns, `apart` numbers from the last.
static void rows_to_terms(const uint16_t *rows, int64_t D, int64_t apart, uint16_t *to) {
    for (int64_t d = 0; d < D; d += PANEL, to += apart)
        for (int half = 0; half < 2; half++)
            for (int64_t k = 0; k < STEP; k += 2) {
                const uint16_t *even = rows + k * D + d + half * VW;
                _mm512_store_si512(to + half * TILE + k * VW,
                                   in_pairs_bf16(_mm256_loadu_si256((const void *)even),
                                                 _mm256_loadu_si256((const void *)(even + D))));
            }
}

// Keys [begin, end) of the chunk; what is missing of the last 32 counts for nothing, but is a number.
static void keys_pack(const struct work *w, int64_t begin, int64_t end) {
    const struct tensor *k = &w->a->k;
    const int64_t D = w->a->head_size;
    for (int64_t j = begin; j < end; j += PANEL) {
        uint16_t *to = w->keys + j * D;
        if (k->layout == LAYOUT_DEVICE) {
            packs[k->dtype].keys(cache_head(k, w->from, w->g, D) + (size_t)j * numbers_bytes(k->dtype, D), D, to);
            continue;
        }
        rows_read(k, w->from + j, min_i64(PANEL, end - j), w->g, D, w->rows);
        rows_to_columns(w->rows, D, to);
    }
}

// Values [begin, end) of the chunk, and zeros up to whole steps.
static void values_pack(const struct work *w, int64_t begin, int64_t end) {
    const struct tensor *v = &w->a->v;
    const int64_t D = w->a->head_size;
    const enum dtype t = v->dtype;
    if (v->layout == LAYOUT_DEVICE) {
        const char *head = cache_head(v, w->from, w->g, D);
        const size_t next = codes_bytes(t, D);
        float scales[2 * WIDEST / QK];
        for (int64_t j = begin; j < (end + PANEL - 1) / PANEL * PANEL; j += 2) {
            uint16_t *to = w->values + j / STEP * 2 * TILE + j % STEP * VW;
            if (j >= end) {
                for (int64_t d = 0; d < D; d += PANEL, to += KEYS * PANEL)
                    for (int half = 0; half < 2; half++)
                        _mm512_store_si512(to + half * TILE, _mm512_setzero_si512());
                continue;
            }
            if (is_block_format(t))
                dtype_row(DTYPE_F16)->to_f32(head + KEYS * next + (size_t)(j * (D / QK)) * 2, scales,
                                             (1 + (j + 1 < end)) * (D / QK));
            packs[t].values(head + (size_t)j * next, next, scales, D, j + 1 < end, to);
        }
        return;
    }
    for (int64_t j = begin; j < end; j += STEP) {
        rows_read(v, w->from + j, min_i64(STEP, end - j), w->g, D, w->rows);
        rows_to_terms(w->rows, D, KEYS * PANEL, w->values + j / STEP * 2 * TILE);
    }
}

// Pairs of the piece, rows that do not exist zeros.
static void queries_pack(const struct work *w) {
    const int64_t D = w->a->head_size, group = w->a->heads / w->a->kv_heads;
    for (int64_t i = 0; i < ceil_div(w->pairs, STRIP) * STRIP; i++) {
        const float *x = i < w->pairs ? row_f32(&w->a->q, w->row + i / group) + (w->g * group + i % group) * D : NULL;
        uint16_t *to = w->q + i / STRIP * STRIP * D + i % STRIP / 16 * TILE + i % 16 * STEP;
        for (int64_t d = 0; d < D; d += STEP, to += 2 * TILE)
            row_to_bf16(x ? x + d : NULL, x ? STEP : 0, STEP, to);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Products.

// Tiles of the left factor: rows `stride` bytes apart, the lower sixteen rows `low` numbers on, steps `step` on.
struct left {
    const uint16_t *at;
    size_t stride;
    int64_t low, step;
};

// c[32 rows][32 columns], rows `apart` floats apart, = or += left b[steps][two tiles].
static void multiply(struct left a, const uint16_t *b, int64_t steps, float *c, int64_t apart, bool add) {
    float *const low = c + 16 * apart;
    const size_t line = (size_t)apart * sizeof *c;
    __asm__ volatile("" ::: "memory"); // gcc 12 does not know that a tile load reads memory
    if (add) {
        _tile_loadd(0, c, line);
        _tile_loadd(1, c + VW, line);
        _tile_loadd(2, low, line);
        _tile_loadd(3, low + VW, line);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < steps; i++, a.at += a.step, b += 2 * TILE) {
        _tile_loadd(4, b, 64);
        _tile_loadd(6, a.at, a.stride);
        _tile_loadd(5, b + TILE, 64);
        _tile_dpbf16ps(0, 6, 4);
        _tile_loadd(7, a.at + a.low, a.stride);
        _tile_dpbf16ps(1, 6, 5);
        _tile_dpbf16ps(2, 7, 4);
        _tile_dpbf16ps(3, 7, 5);
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + VW, line);
    _tile_stored(2, low, line);
    _tile_stored(3, low + VW, line);
    __asm__ volatile("" ::: "memory");
}

// ---------------------------------------------------------------------------------------------------------------
// The softmax.

// 2^x within 2^-18; 0 far below. Rounding to whole numbers by adding 1.5 2^23.
INLINE vf v_exp2(vf x) {
    const vf magic = v_set1(12582912.f), n = v_sub(v_add(x, magic), magic), r = v_sub(x, n);
    vf p = v_set1(0.009582853f);
    p = v_fma(p, r, v_set1(0.055906426f));
    p = v_fma(p, r, v_set1(0.24024099f));
    p = v_fma(p, r, v_set1(0.6931242f));
    p = v_fma(p, r, v_set1(1)); // 2^0 is 1
    return _mm512_scalef_ps(p, n);
}

// What a pair sees of the chunk.
struct seen {
    int64_t first, limit;
};
INLINE struct seen seen_of(const struct work *w, int64_t pair) {
    const int64_t row = w->row + pair / (w->a->heads / w->a->kv_heads);
    return (struct seen){max_i64(0, w->a->lo[row] - w->from), min_i64(KEYS, w->a->hi[row] - w->from)};
}

// Scores outside of what a pair sees become UNSEEN; all others are capped where the family does.
static void scores_hide(const struct work *w, struct seen s, int64_t begin, int64_t end, float *x) {
    if (w->a->softcap > 0)
        cap_numbers(x + begin, end - begin, w->a->scale, w->a->softcap);
    for (int64_t c = begin; c < s.first; c++) x[c] = UNSEEN;
    for (int64_t c = s.limit; c < end; c++) x[c] = UNSEEN;
}

// Numbers i to i + 32 of a row that are kept, as bits; i a multiple of 32.
INLINE uint32_t drop_kept(struct rng_row row, vu least, int64_t i) {
    const vu words = drop_words(row, (uint32_t)(i / 2));
    return (uint32_t)_mm512_cmpge_epu32_mask((vi)(words & 0xFFFF), (vi)least) |
           (uint32_t)_mm512_cmpge_epu32_mask((vi)(words >> 16), (vi)least) << 16;
}

// Scores [begin, end) of a pair to numbers of bf16 at the beginning of its line; returns lanes of their sum. Where something
// drops, zeros for what is dropped, which is key `first` of the pair at the begin of the chunk; the sum is that of all.
INLINE vf exponentials_as(const bool drops, float *x, int64_t begin, int64_t end, float c, float most,
                          const struct dropout *d, struct rng_row row, int64_t first) {
    const vu least = (vu)v_set1_words((int32_t)d->below);
    const vf by = v_set1(c), shift = v_set1(-c * most);
    vf sum = v_zero(), more = v_zero();
    uint16_t *to = (uint16_t *)(void *)x;
    for (int64_t j = begin; j < end; j += STEP) {
        const vf e = v_exp2(v_fma(by, v_load(x + j), shift)), f = v_exp2(v_fma(by, v_load(x + j + VW), shift));
        sum = v_add(sum, e), more = v_add(more, f);
        const uint32_t kept = drops ? drop_kept(row, least, first + j) : UINT32_MAX;
        _mm512_storeu_si512(to + j, in_row(_mm512_maskz_mov_ps((__mmask16)kept, e), _mm512_maskz_mov_ps((__mmask16)(kept >> 16), f)));
    }
    return v_add(sum, more);
}
static vf exponentials(const struct work *w, int64_t pair, float *x, int64_t begin, int64_t end) {
    const struct attend_args *a = w->a;
    const int64_t group = a->heads / a->kv_heads, row = w->row + pair / group;
    if (a->drop.below == 0) return exponentials_as(false, x, begin, end, w->c, w->m[pair], &a->drop, (struct rng_row){0, 0}, 0);
    return exponentials_as(true, x, begin, end, w->c, w->m[pair], &a->drop,
                           dropout_row(&a->drop, row, w->g * group + pair % group), w->from - a->lo[row]);
}

// Scores of `count` pairs from pair i on become p; m, l and o follow.
static void softmax(const struct work *w, int64_t i, int64_t count, int64_t begin, int64_t end) {
    const int64_t D = w->a->head_size;
    float by[STRIP] = {0}; // what is there already is multiplied with
    for (int64_t r = 0; r < count; r++) {
        float *x = w->scores + r * LINE;
        const struct seen s = seen_of(w, i + r);
        by[r] = w->m[i + r];
        if (s.first >= s.limit) continue;
        if (w->a->softcap > 0 || s.first > begin || s.limit < end) scores_hide(w, s, begin, end, x);
        vf most = v_load(x + begin), more = v_load(x + begin + VW);
        for (int64_t j = begin + STEP; j < end; j += STEP)
            most = v_max(most, v_load(x + j)), more = v_max(more, v_load(x + j + VW));
        const float found = _mm512_reduce_max_ps(v_max(most, more));
        w->m[i + r] = found > by[r] ? found : by[r];
    }
    for (int64_t r = 0; r < count; r += VW)
        v_store(by + r, v_exp2(v_mul(v_set1(w->c), v_sub(v_load(by + r), v_load(w->m + i + r)))));
    for (int64_t r = 0; r < count; r++) {
        float *x = w->scores + r * LINE, *o = w->o + (i + r) * D, *l = w->l + (i + r) * VW;
        const struct seen s = seen_of(w, i + r);
        if (s.first >= s.limit) {
            memset((uint16_t *)(void *)x + begin, 0, (size_t)(end - begin) * sizeof(uint16_t));
            continue;
        }
        const vf sum = exponentials(w, i + r, x, begin, end), kept = v_set1(by[r]);
        v_store(l, v_fma(kept, v_load(l), sum));
        for (int64_t d = 0; d < D && by[r] != 1; d += VW) v_store(o + d, v_mul(kept, v_load(o + d)));
    }
}

// 32 pairs from pair i on against the chunk.
static void strip(const struct work *w, int64_t i) {
    const int64_t D = w->a->head_size, count = min_i64(STRIP, w->pairs - i);
    int64_t begin = KEYS, end = 0;
    for (int64_t r = i; r < i + count; r++) {
        const struct seen s = seen_of(w, r);
        if (s.first < s.limit) begin = min_i64(begin, s.first), end = max_i64(end, s.limit);
    }
    if (begin >= end) return;
    begin = begin / STEP * STEP, end = ceil_div(end, STEP) * STEP;
    const struct left q = {w->q + i * D, 64, TILE, 2 * TILE};
    for (int64_t j = begin; j < end; j += PANEL)
        multiply(q, w->keys + j * D, D / STEP, w->scores + j, LINE, false);
    softmax(w, i, count, begin, end);
    for (int64_t r = count; r < STRIP; r++) memset(w->scores + r * LINE, 0, KEYS * sizeof(uint16_t));
    const struct left p = {(const uint16_t *)(void *)w->scores + begin, LINE * sizeof(float), 16 * 2 * LINE, STEP};
    for (int64_t d = 0; d < D; d += PANEL)
        multiply(p, w->values + d * KEYS + begin * PANEL, (end - begin) / STEP, w->o + i * D + d, D, true);
}

// ---------------------------------------------------------------------------------------------------------------

static void piece_write(const struct work *w) {
    const struct attend_args *a = w->a;
    const int64_t D = a->head_size, group = a->heads / a->kv_heads;
    const float ln2 = 0.69314718f;
    for (int64_t i = 0; i < w->pairs; i++) {
        const int64_t row = w->row + i / group, h = w->g * group + i % group;
        const bool none = a->lo[row] >= a->hi[row];
        const float l = _mm512_reduce_add_ps(v_load(w->l + i * VW));
        float *out = row_f32(&a->out, row) + h * D;
        for (int64_t d = 0; d < D; d += VW)
            v_store(out + d, none ? v_zero() : v_mul(v_set1(dropout_factor(&a->drop) / l), v_load(w->o + i * D + d)));
        if (a->lse)
            a->lse[row * a->heads + h] =
                none ? -INFINITY : (float)((double)w->m[i] * (double)(w->c * ln2) + log((double)l));
    }
}

static void attend_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_job *job = arg;
    const struct attend_args *a = job->a;
    const int64_t D = a->head_size, G = a->kv_heads, group = a->heads / G;
    struct work w;
    const size_t bytes = work_place(&w, NULL, job->pairs_most, D);
    work_place(&w, cpu_scratch(thread, SLOT_A, bytes), job->pairs_most, D);
    w.a = a;
    w.c = (a->softcap > 0 ? 1 : a->scale) * 1.44269504f;
    cpu_tiles_open();
    for (int64_t t = lo; t < hi; t++) {
        const int64_t piece = t / G, end = job->first[piece + 1];
        w.row = job->first[piece], w.g = t % G, w.pairs = (end - w.row) * group;
        int64_t start = INT64_MAX, stop = 0;
        for (int64_t i = w.row; i < end; i++)
            if (a->lo[i] < a->hi[i]) start = min_i64(start, a->lo[i]), stop = max_i64(stop, a->hi[i]);
        if (a->k.layout == LAYOUT_DEVICE) start = start / KEYS * KEYS;
        queries_pack(&w);
        const int64_t whole = ceil_div(w.pairs, STRIP) * STRIP;
        memset(w.o, 0, (size_t)(whole * D) * sizeof *w.o);
        memset(w.l, 0, (size_t)(whole * VW) * sizeof *w.l);
        for (int64_t i = 0; i < whole; i++) w.m[i] = UNSEEN;
        for (w.from = start; w.from < stop; w.from += KEYS) {
            const int64_t keys = min_i64(KEYS, stop - w.from);
            keys_pack(&w, 0, keys);
            values_pack(&w, 0, keys);
            for (int64_t i = 0; i < w.pairs; i += STRIP) strip(&w, i);
        }
        piece_write(&w);
    }
    _tile_release();
}

static struct backend below; // written again with the same values whenever a table is made

// Pieces: neighbours that begin at the same key, or in a cache see some key in common.
static void attend(const struct attend_args *a) {
    const int64_t D = a->head_size, n = a->q.rows;
    if (a->precision != PRECISION_BF16 || D % STEP || D > WIDEST || !(a->scale > 0) || n == 0) {
        below.attend(a);
        return;
    }
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && D > 0);
    assert(is_f32(&a->out) && is_f32(&a->q) && same_shape(&a->out, &a->q));
    assert(same_shape(&a->k, &a->v) && a->k.layout == a->v.layout);
    assert(a->q.cols == a->heads * D && a->k.cols == a->kv_heads * D);
    assert(is_cache(&a->k, D) && is_cache(&a->v, D));
    assert(a->drop.below < 65536 && (a->drop.below == 0 || a->k.layout == LAYOUT_ROWS));
    const int64_t group = a->heads / a->kv_heads, rows_each = max_i64(1, PIECE_PAIRS / group);
    const bool cache = a->k.layout == LAYOUT_DEVICE;
    int32_t *first = cpu_scratch(0, SLOT_SHARED, (size_t)(n + 1) * sizeof *first);
    struct attend_job job = {.a = a, .first = first, .pairs_most = ceil_div(rows_each * group, STRIP) * STRIP};
    for (int64_t i = 0; i < n; i++) {
        assert(a->hi[i] <= a->lo[i] || (a->lo[i] >= 0 && a->hi[i] <= a->k.rows));
        bool joins = i > 0 && i - first[job.pieces - 1] < rows_each;
        if (joins) joins = cache ? a->lo[i] < a->hi[i - 1] && a->lo[i - 1] < a->hi[i]
                                 : a->lo[i] == a->lo[i - 1];
        if (!joins) first[job.pieces++] = (int32_t)i;
    }
    first[job.pieces] = (int32_t)n;
    struct work w;
    cpu_scratch_reserve(SLOT_A, work_place(&w, NULL, job.pairs_most, D));
    pool_for(job.pieces * a->kv_heads, 1, attend_piece, &job);
}

// ---------------------------------------------------------------------------------------------------------------
// Backward. Keys are rows, queries columns: what a pair has of its own lies across a vector then.
//
//   S = K Q^T ; P = 2^(c S - lse log2 e) ; dV += P dO ; dS = scale P (V dO^T - delta) ; dK += dS Q ; dQ^T += K^T dS
//
// by chunks of 256 keys from the segment's start, batches of 256 pairs in order inside: a piece is a segment and a kv head.

enum { BATCH = 256 }; // pairs

struct back {
    const struct attend_back_args *a;
    uint16_t *k, *v;           // [KEYS][D]
    uint16_t *turned;          // [D][KEYS] keys
    uint16_t *q_cols, *do_cols; // [BATCH / 32][D / 32][two tiles]: a pair is a column
    uint16_t *q_terms, *do_terms; // [D / 32][BATCH / 32][two tiles]: a pair is a term
    uint16_t *p, *ds;          // [32 keys][BATCH]
    uint16_t *ds_terms;        // [BATCH / 32][KEYS / 32][two tiles]: a key is a term
    uint16_t *rows;            // [32][D]
    float *some;               // [32][D]
    float *dk, *dv;            // [KEYS][D]
    float *s, *dp;             // [32][32]
    float *lse, *delta;        // [BATCH], lse times log2 e
    int32_t *lo, *hi;          // [BATCH], in keys of the chunk
    uint32_t *kept;            // [KEYS / 32][BATCH], bit l: of 32 keys, the l-th is not dropped; NULL: all are kept
    int64_t start, g, from, count; // of the segment; kv head; the chunk
    int64_t pairs, pair;           // of the segment; where the batch begins
};

static size_t back_place(struct back *w, char *base, int64_t D, bool drops) {
    size_t used = 0, two = sizeof(uint16_t), four = sizeof(float), D_ = (size_t)D;
    uint16_t **halves[] = {&w->k, &w->v, &w->turned, &w->q_cols, &w->do_cols, &w->q_terms, &w->do_terms};
    static_assert((int)KEYS == (int)BATCH, "these are of one size");
    for (size_t i = 0; i < COUNT_OF(halves); i++) *halves[i] = take(base, &used, KEYS * D_ * two);
    w->p = take(base, &used, STRIP * BATCH * two);
    w->ds = take(base, &used, STRIP * BATCH * two);
    w->ds_terms = take(base, &used, KEYS * BATCH * two);
    w->rows = take(base, &used, STRIP * D_ * two);
    w->some = take(base, &used, STRIP * D_ * four);
    w->dk = take(base, &used, KEYS * D_ * four);
    w->dv = take(base, &used, KEYS * D_ * four);
    w->s = take(base, &used, STRIP * STRIP * four);
    w->dp = take(base, &used, STRIP * STRIP * four);
    w->lse = take(base, &used, BATCH * four);
    w->delta = take(base, &used, BATCH * four);
    w->lo = take(base, &used, BATCH * four);
    w->hi = take(base, &used, BATCH * four);
    w->kept = drops ? take(base, &used, KEYS / 32 * BATCH * four) : NULL;
    return used;
}

static void back_keys(const struct back *w) {
    const int64_t D = w->a->head_size;
    for (int64_t j = 0; j < w->count; j += PANEL) {
        rows_read(&w->a->v, w->from + j, min_i64(PANEL, w->count - j), w->g, D, w->v + j * D);
        rows_read(&w->a->k, w->from + j, min_i64(PANEL, w->count - j), w->g, D, w->k + j * D);
        for (int64_t l = 0; l < PANEL; l++)
            for (int64_t d = 0; d < D; d += VW) v_store(w->some + l * D + d, v_load_bf16(w->k + (j + l) * D + d));
        for (int64_t d = 0; d < D; d += VW) {
            float t[2 * VW * VW];
            v_transpose(w->some + d, D, t, VW);
            v_transpose(w->some + VW * D + d, D, t + VW * VW, VW);
            for (int64_t l = 0; l < VW; l++)
                _mm512_storeu_si512(w->turned + (d + l) * KEYS + j, in_row(v_load(t + l * VW), v_load(t + (VW + l) * VW)));
        }
    }
}

// 32 pairs of q or dout as columns and as terms.
static void back_columns(const struct back *w, const struct tensor *t, int64_t i, uint16_t *cols, uint16_t *terms) {
    const int64_t D = w->a->head_size, group = w->a->heads / w->a->kv_heads;
    for (int64_t r = 0; r < STRIP; r++) {
        const int64_t pair = w->pair + i + r;
        const float *x = pair < w->pairs ? row_f32(t, w->start + pair / group) + (w->g * group + pair % group) * D : NULL;
        row_to_bf16(x, x ? D : 0, D, w->rows + r * D);
    }
    rows_to_columns(w->rows, D, cols + i * D);
    rows_to_terms(w->rows, D, BATCH * PANEL, terms + i * PANEL);
}

// Which keys of the chunk pair i of the batch keeps; the first of them is its number `shift`, below 0 where it sees none yet.
static void back_kept(const struct back *w, int64_t i, struct rng_row row, int64_t shift) {
    const vu least = (vu)v_set1_words((int32_t)w->a->drop.below);
    const int64_t begin = shift & ~(int64_t)31;
    uint32_t low = drop_kept(row, least, begin);
    for (int64_t j = 0; j < KEYS / 32; j++) {
        const uint32_t high = drop_kept(row, least, begin + 32 * (j + 1));
        w->kept[j * BATCH + i] = (uint32_t)(((uint64_t)high << 32 | low) >> (shift - begin));
        low = high;
    }
}

// The batch at hand; returns how many pairs it has, in whole strips.
static int64_t back_batch(const struct back *w) {
    const struct attend_back_args *a = w->a;
    const int64_t D = a->head_size, group = a->heads / a->kv_heads;
    const int64_t count = min_i64(BATCH, ceil_div(w->pairs - w->pair, STRIP) * STRIP);
    for (int64_t i = 0; i < count; i++) {
        const int64_t pair = w->pair + i, row = w->start + pair / group, h = w->g * group + pair % group;
        w->lse[i] = w->delta[i] = 0, w->lo[i] = w->hi[i] = 0;
        if (pair >= w->pairs) continue;
        vf sum = v_zero();
        for (int64_t d = 0; d < D; d += VW)
            sum = v_fma(v_load(row_f32(&a->dout, row) + h * D + d), v_load(row_f32(&a->out, row) + h * D + d), sum);
        w->delta[i] = _mm512_reduce_add_ps(sum);
        w->lse[i] = a->lse[row * a->heads + h] * 1.44269504f;
        w->lo[i] = (int32_t)max_i64(0, a->lo[row] - w->from);
        w->hi[i] = (int32_t)min_i64(w->count, a->hi[row] - w->from);
        if (w->kept) back_kept(w, i, dropout_row(&a->drop, row, h), w->from - a->lo[row]);
    }
    for (int64_t i = 0; i < count; i += STRIP) {
        back_columns(w, &a->q, i, w->q_cols, w->q_terms);
        back_columns(w, &a->dout, i, w->do_cols, w->do_terms);
    }
    return count;
}

// p and ds of 32 keys from j on and 32 pairs from i on.
INLINE void back_slopes_as(const bool drops, const struct back *w, int64_t j, int64_t i) {
    const vf c = v_set1(w->a->scale * 1.44269504f), scale = v_set1(w->a->scale), factor = v_set1(dropout_factor(&w->a->drop));
    uint16_t *terms = w->ds_terms + i * KEYS + j * PANEL;
    for (int64_t l = 0; l < PANEL; l += 2) {
        vf p[2][2], ds[2][2];
        for (int odd = 0; odd < 2; odd++)
            for (int half = 0; half < 2; half++) {
                const int64_t at = (l + odd) * STRIP + half * VW, pair = i + half * VW;
                const vi key = _mm512_set1_epi32((int32_t)(j + l + odd));
                const __mmask16 seen = _mm512_cmple_epi32_mask(v_load_words(w->lo + pair), key) &
                                       _mm512_cmpgt_epi32_mask(v_load_words(w->hi + pair), key);
                const vf e = v_exp2(v_sub(v_mul(c, v_load(w->s + at)), v_load(w->lse + pair)));
                vf share = e, dp = v_load(w->dp + at);
                if (drops) {
                    const vi bit = _mm512_set1_epi32((int32_t)(UINT32_C(1) << (l + odd)));
                    const __mmask16 kept = _mm512_test_epi32_mask(v_load_words(w->kept + j / 32 * BATCH + pair), bit);
                    share = _mm512_maskz_mul_ps(kept, factor, e), dp = _mm512_maskz_mul_ps(kept, factor, dp);
                }
                const vf slope = v_mul(v_mul(scale, e), v_sub(dp, v_load(w->delta + pair)));
                p[odd][half] = _mm512_maskz_mov_ps(seen, share), ds[odd][half] = _mm512_maskz_mov_ps(seen, slope);
            }
        for (int odd = 0; odd < 2; odd++) {
            _mm512_storeu_si512(w->p + (l + odd) * BATCH + i, in_row(p[odd][0], p[odd][1]));
            _mm512_storeu_si512(w->ds + (l + odd) * BATCH + i, in_row(ds[odd][0], ds[odd][1]));
        }
        for (int half = 0; half < 2; half++)
            _mm512_storeu_si512(terms + half * TILE + l * VW, in_pairs(ds[0][half], ds[1][half]));
    }
}

static void back_slopes(const struct back *w, int64_t j, int64_t i) {
    if (w->kept) back_slopes_as(true, w, j, i);
    else back_slopes_as(false, w, j, i);
}

// Keys that 32 pairs see, in whole steps.
static struct seen back_seen(const struct back *w, int64_t i) {
    struct seen s = {KEYS, 0};
    for (int64_t r = i; r < i + STRIP; r++)
        if (w->lo[r] < w->hi[r]) s.first = min_i64(s.first, w->lo[r]), s.limit = max_i64(s.limit, w->hi[r]);
    s.first = s.first / STEP * STEP, s.limit = ceil_div(s.limit, STEP) * STEP;
    return s;
}

// dk and dv of 32 keys from the pairs of the batch that see some of them.
static void back_rows(const struct back *w, int64_t j, int64_t count) {
    const int64_t D = w->a->head_size;
    int64_t first = count, limit = 0;
    for (int64_t i = 0; i < count; i += STRIP) {
        const struct seen s = back_seen(w, i);
        if (s.first <= j && j < s.limit) first = min_i64(first, i), limit = i + STRIP;
    }
    if (first >= limit) return;
    for (int64_t i = first; i < limit; i += STRIP) {
        multiply((struct left){w->k + j * D, (size_t)D * 2, 16 * D, STEP}, w->q_cols + i * D, D / STEP, w->s, STRIP, false);
        multiply((struct left){w->v + j * D, (size_t)D * 2, 16 * D, STEP}, w->do_cols + i * D, D / STEP, w->dp, STRIP, false);
        back_slopes(w, j, i);
    }
    const struct left p = {w->p + first, BATCH * 2, 16 * BATCH, STEP}, ds = {w->ds + first, BATCH * 2, 16 * BATCH, STEP};
    for (int64_t d = 0; d < D; d += PANEL) {
        const int64_t at = d * BATCH + first * PANEL;
        multiply(p, w->do_terms + at, (limit - first) / STEP, w->dv + j * D + d, D, true);
        multiply(ds, w->q_terms + at, (limit - first) / STEP, w->dk + j * D + d, D, true);
    }
}

// dq of 32 pairs from i on.
static void back_queries(const struct back *w, int64_t i) {
    const int64_t D = w->a->head_size, group = w->a->heads / w->a->kv_heads;
    const struct seen s = back_seen(w, i);
    if (s.first >= s.limit) return;
    for (int64_t d = 0; d < D; d += PANEL) {
        multiply((struct left){w->turned + d * KEYS + s.first, KEYS * 2, 16 * KEYS, STEP},
                 w->ds_terms + i * KEYS + s.first * PANEL, (s.limit - s.first) / STEP, w->s, STRIP, false);
        for (int64_t r = 0; r < STRIP; r += VW)
            for (int64_t l = 0; l < PANEL; l += VW)
                v_transpose(w->s + l * STRIP + r, STRIP, w->dp + r * STRIP + l, STRIP);
        for (int64_t r = 0; r < STRIP && w->pair + i + r < w->pairs; r++) {
            const int64_t pair = w->pair + i + r;
            float *to = row_f32(&w->a->dq, w->start + pair / group) + (w->g * group + pair % group) * D + d;
            for (int64_t l = 0; l < PANEL; l += VW) v_store(to + l, v_add(v_load(to + l), v_load(w->dp + r * STRIP + l)));
        }
    }
}

static void attend_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_back_args *a = arg;
    const int64_t D = a->head_size, G = a->kv_heads, group = a->heads / G;
    const size_t head = (size_t)D * sizeof(float);
    struct back w = {.a = a};
    const size_t bytes = back_place(&w, NULL, D, a->drop.below > 0);
    back_place(&w, cpu_scratch(thread, SLOT_A, bytes), D, a->drop.below > 0);
    cpu_tiles_open();
    for (int64_t t = lo; t < hi; t++) {
        w.start = t / G * a->segment, w.g = t % G, w.pairs = a->segment * group;
        for (int64_t i = 0; i < a->segment; i++) memset(row_f32(&a->dq, w.start + i) + w.g * group * D, 0, head * (size_t)group);
        for (w.from = w.start; w.from < w.start + a->segment; w.from += KEYS) {
            w.count = min_i64(KEYS, w.start + a->segment - w.from);
            back_keys(&w);
            memset(w.dk, 0, head * KEYS), memset(w.dv, 0, head * KEYS);
            for (w.pair = 0; w.pair < w.pairs; w.pair += BATCH) {
                const int64_t count = back_batch(&w);
                for (int64_t j = 0; j < w.count; j += PANEL) back_rows(&w, j, count);
                for (int64_t i = 0; i < count; i += STRIP) back_queries(&w, i);
            }
            for (int64_t j = 0; j < w.count; j++) {
                memcpy(row_f32(&a->dk, w.from + j) + w.g * D, w.dk + j * D, head);
                memcpy(row_f32(&a->dv, w.from + j) + w.g * D, w.dv + j * D, head);
            }
        }
    }
    _tile_release();
}

static void attend_back(const struct attend_back_args *a) {
    const int64_t D = a->head_size;
    if (a->precision != PRECISION_BF16 || D % STEP || D > WIDEST || a->q.rows == 0) {
        below.attend_back(a);
        return;
    }
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->lse);
    assert(is_f32(&a->dq) && is_f32(&a->dout) && is_f32(&a->out) && is_f32(&a->q));
    assert(same_shape(&a->dq, &a->q) && same_shape(&a->dout, &a->q) && same_shape(&a->out, &a->q));
    assert(is_f32(&a->dk) && is_f32(&a->dv) && is_f32(&a->k) && is_f32(&a->v));
    assert(same_shape(&a->dk, &a->k) && same_shape(&a->dv, &a->v) && same_shape(&a->k, &a->v));
    assert(a->q.cols == a->heads * D && a->k.cols == a->kv_heads * D);
    assert(a->k.rows == a->q.rows && a->segment > 0 && a->q.rows % a->segment == 0 && a->drop.below < 65536);
    struct back w;
    cpu_scratch_reserve(SLOT_A, back_place(&w, NULL, D, a->drop.below > 0));
    pool_for(a->q.rows / a->segment * a->kv_heads, 1, attend_back_piece, (void *)a);
}

bool cpu_fill_amx_attend(struct backend *b) {
    below = *b;
    b->attend = attend;
    b->attend_back = attend_back;
    return true;
}

#else
bool cpu_fill_amx_attend(struct backend *b) {
    (void)b;
    return false;
}
#endif
