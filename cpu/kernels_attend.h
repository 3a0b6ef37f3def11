// kernels_attend.h: attention, forward and backward. Part of kernels.h.
//
// Both products of attention are the tile kernel of kernels_matmul.h, or for few queries those of
// kernels_cache.h. A tile of queries is up to TILE_PAIRS pairs (row, head) which share a kv head;
// pair = row * group + head in group, so that grouped heads share the keys they read. Keys come in
// chunks of KEYS:
//
//   scores = Q K^T                     vectors across keys, a chain over the head size
//   m = max, p = exp(scores - m), l = sum p       within the chunk
//   o = P V                            vectors across the head size, a chain over the keys
//   join the chunks in order: (m, l, o) by e^(m - new m)
//                                      (Dao 2023, FlashAttention-2, section 3.1)
//
// Chunks of a cache are its own, counted from row 0, so that neighbours in a sliding window share
// a tile; among rows that are keys themselves they are counted from the first key `lo`, which
// a tile then shares, so that a document's numbers do not depend on where it stands in the batch.
//
// A pair's numbers depend on its own keys only: others in the tile add keys that are masked, p = 0,
// and adding 0 changes nothing. So a row alone, in a batch, or with its chunks spread over threads
// gives the same bits.
//
// Backward (same paper, section 3.1.2): p again from the log-sum-exp, then with delta = dout . out
//   dv += P^T dout ; ds = scale p (dout V^T - delta) ; dq += ds K ; dk += ds^T Q
// by chunks of keys counted from the segment's start, tiles of queries in order inside; one piece
// is one segment and kv head.

enum {
    KEYS_WIDE = 272, // KEYS rounded up to whole tiles, then to whole vectors
    TILE_PAIRS = 96,
    SPLIT_ROWS = 16, // up to so many rows the chunks are pieces of their own
};
static_assert(KEYS_WIDE % VW == 0 &&
                  (int)KEYS_WIDE >= (KEYS + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS,
              "a row of keys has room");
static_assert((int)TILE_PAIRS % (int)TILE_ROWS == 0, "tiles divide pairs");

// Q K^T for `rows` pairs from pair i0 and one panel of 32 keys, into sum[rows][32].
static void scores_of(const float *q, int64_t stride, int64_t i0, int64_t rows, const float *keys,
                      int64_t D, float *sum) {
    const struct left left = {q, stride, false};
    for (int64_t k = 0; k < D; k += BLOCK)
        tile_run(&left, i0, rows, k, min_i64(BLOCK, D - k), keys + k * PANEL, PANEL, PANEL, sum,
                 k > 0);
}

// Rows keep all kv heads of a token together, so one head's keys lie in short runs far apart,
// which no hardware prefetcher follows: rows are asked for AHEAD of their use.
enum { AHEAD = 32 };
INLINE void row_prefetch(const char *from, size_t row_bytes, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + AHEAD * row_bytes + at);
}

// Keys (or values) [j, j + count) of one kv head, transposed: to[D][32]. `rows` has room for
// [32][D].
static void keys_transpose(const struct tensor *t, int64_t j, int64_t count, int64_t at, int64_t D,
                           float *rows, float *to) {
    const char *from =
        (const char *)t->data + (size_t)j * t->row_bytes + numbers_bytes(t->dtype, at);
    for (int64_t l = 0; l < count; l++)
        row_prefetch(from + (size_t)l * t->row_bytes, t->row_bytes, numbers_bytes(t->dtype, D));
    if (t->dtype == DTYPE_F32) {
        panel_transpose((const float *)(const void *)from, row_stride(t), count, D, to);
        return;
    }
    for (int64_t l = 0; l < count; l++)
        to_floats(t->dtype, from + (size_t)l * t->row_bytes, rows + l * D, D);
    panel_transpose(rows, D, count, D, to);
}

// to[D / 32][KEYS][32] = columns [at, at + D) of rows [j, j + count); what is missing of the last
// 32 columns zeros.
static void values_copy(const struct tensor *t, int64_t j, int64_t count, int64_t at, int64_t D,
                        float *to) {
    const char *from =
        (const char *)t->data + (size_t)j * t->row_bytes + numbers_bytes(t->dtype, at);
    for (int64_t k = 0; k < count; k++, from += t->row_bytes, to += PANEL) {
        row_prefetch(from, t->row_bytes, numbers_bytes(t->dtype, D));
        for (int64_t d = 0; d < D; d += PANEL) {
            const int64_t cols = min_i64(PANEL, D - d);
            to_floats(t->dtype, from + numbers_bytes(t->dtype, d), to + d * KEYS, cols);
            for (int64_t l = cols; l < PANEL; l++) to[d * KEYS + l] = 0;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Forward.

struct attend_job {
    const struct attend_args *a;
    const int32_t *first; // row where a tile starts; one more at the end
    int64_t tiles, pairs_max, part_stride;
    int64_t longest;        // keys of a row
    int64_t origin, chunks; // of the split way: chunks of a cache are counted from row `origin`
    float *parts;           // of the split way: [row][head][chunk][part_stride] = o[D], m, l
};

static float *room_take(float *base, int64_t *used, int64_t count) {
    float *at = base ? base + *used : NULL;
    *used += count;
    return at;
}

// One thread's memory: q[pairs][Dw], scores[KEYS / 32][pairs][32], p[pairs][KEYS], keys[D][32],
// rows[32][D], values[Dw / 32][KEYS][32], o[Dw / 32][pairs][32], sum_o[pairs][Dw], m l sum_m
// sum_l[pairs].
struct attend_room {
    float *q, *scores, *p, *keys, *rows, *values, *o, *sum_o, *m, *l, *sum_m, *sum_l;
};
// Lays the room out from `base`, which may be NULL to learn the size; returns that size in bytes.
static size_t attend_room(struct attend_room *room, float *base, int64_t pairs, int64_t D) {
    const int64_t wide = round_up(D, PANEL);
    int64_t used = 0;
    room->q = room_take(base, &used, pairs * wide);
    room->scores = room_take(base, &used, pairs * KEYS);
    room->p = room_take(base, &used, pairs * KEYS);
    room->keys = room_take(base, &used, D * PANEL);
    room->rows = room_take(base, &used, D * PANEL);
    room->values = room_take(base, &used, KEYS * wide);
    room->o = room_take(base, &used, pairs * wide);
    room->sum_o = room_take(base, &used, pairs * wide);
    room->m = room_take(base, &used, pairs);
    room->l = room_take(base, &used, pairs);
    room->sum_m = room_take(base, &used, pairs);
    room->sum_l = room_take(base, &used, pairs);
    return (size_t)used * sizeof(float);
}

// The softmax of one pair's chunk, of which it sees keys [lo, hi): scores to p, zeros elsewhere in
// [begin, end).
static void softmax_chunk(float *scores, int64_t next_panel, int64_t lo, int64_t hi, int64_t begin,
                          int64_t end, float scale, float *p, float *most, float *sum) {
    const vf k = v_set1(scale);
    vf m = v_set1(-INFINITY);
    const int64_t start = lo / LANES * LANES; // whole lanes, so that every sum has its one order
    for (int64_t c = start; c < lo; c++) scores[c / PANEL * next_panel + c % PANEL] = -INFINITY;
    for (int64_t c = start; c < hi; c += VW)
        m = v_max(m, v_first_or(v_mul(k, v_load(scores + c / PANEL * next_panel + c % PANEL)),
                                hi - c, -INFINITY));
    *most = fold_max(m);
    const vf shift = v_set1(*most);
    struct lanes s;
    for (int v = 0; v < LANE_VECTORS; v++) s.at[v] = v_zero();
    int64_t c = start;
    for (; c < hi; c += LANES)
#pragma GCC unroll 8
        for (int v = 0; v < LANE_VECTORS; v++) {
            const int64_t at = c + v * VW;
            if (at >= hi) break;
            const vf z = v_mul(k, v_load(scores + at / PANEL * next_panel + at % PANEL));
            const vf e = v_first_or(v_exp(v_sub(z, shift)), hi - at, 0);
            s.at[v] = v_add(s.at[v], e);
            v_store(p + at, e);
        }
    for (c = round_up(hi, VW); c < end; c += VW) v_store(p + c, v_zero());
    for (c = begin; c < start; c += VW) v_store(p + c, v_zero());
    *sum = fold_add(&s);
}

// Some of them are dropped: [lo, hi) of row i and head h of those of the chunk. Chunks of rows begin at the first key that a
// row sees, so that its numbers lie as they are made. What is kept grows at the end, in attend_write.
static void probabilities_drop(const struct attend_args *a, int64_t i, int64_t h, int64_t from, int64_t hi, float *p) {
    assert(a->k.layout == LAYOUT_ROWS && a->lo[i] <= from && (from - a->lo[i]) % PANEL == 0);
    drop_run(dropout_row(&a->drop, i, h), (vu)v_set1_words((int32_t)a->drop.below), v_set1(1), from - a->lo[i], hi, p);
}

// A tile's rows [row, row + rows) and kv head g against the chunk of keys that starts at `from`.
struct attend_part {
    int64_t row, rows, g, from;
    const char *next;                               // keys of a cache that are read after it, or those of the chunk
    int64_t begin, end;                             // keys of the chunk that anybody here sees
    int64_t first[(1 << 10) / 3 + 1], limit[(1 << 10) / 3 + 1]; // that a subtile of pairs sees
};

// False when nobody sees a key.
static bool attend_part(const struct attend_args *a, struct attend_part *t) {
    const int64_t group = a->heads / a->kv_heads, pairs = t->rows * group;
    t->begin = KEYS, t->end = 0;
    for (int64_t i = 0; i < pairs; i += TILE_ROWS) {
        int64_t lo = KEYS, hi = 0;
        for (int64_t r = i / group; r < t->rows && r * group < i + TILE_ROWS; r++) {
            const int64_t at = t->row + r, first = max_i64(0, a->lo[at] - t->from),
                          limit = min_i64(KEYS, a->hi[at] - t->from);
            if (first < limit) lo = min_i64(lo, first), hi = max_i64(hi, limit);
        }
        t->first[i / TILE_ROWS] = lo = lo / PANEL * PANEL;
        t->limit[i / TILE_ROWS] = hi;
        t->begin = min_i64(t->begin, lo), t->end = max_i64(t->end, hi);
    }
    return t->begin < t->end;
}

static void attend_scores(const struct attend_args *a, const struct attend_room *room, int64_t P,
                          const struct attend_part *t) {
    const int64_t D = a->head_size, pairs = t->rows * (a->heads / a->kv_heads);
    const bool cache = a->k.layout == LAYOUT_DEVICE;
    const char *head = cache ? cache_head(&a->k, t->from, t->g, D) : NULL;
    if (cache && few_fits(pairs, D)) {
        few_scores_run(&a->k, head, t->begin, round_up(t->end, PANEL), D, room->q, pairs,
                       cache_head(&a->v, t->from, t->g, D) + (size_t)t->begin * codes_bytes(a->v.dtype, D),
                       a->v.dtype, room->scores, P);
        return;
    }
    for (int64_t j = t->begin; j < t->end; j += PANEL) {
        const float *keys = room->keys;
        if (cache) keys = keys_panel(&a->k, head, j, D, room->keys);
        else
            keys_transpose(&a->k, t->from + j, min_i64(PANEL, t->end - j), t->g * D, D, room->rows,
                           room->keys);
        for (int64_t i = 0; i < pairs; i += TILE_ROWS)
            if (j >= t->first[i / TILE_ROWS] && j < t->limit[i / TILE_ROWS])
                scores_of(room->q, round_up(D, PANEL), i,
                          round_up(min_i64(TILE_ROWS, pairs - i), 3), keys, D,
                          room->scores + j * P + i * PANEL);
    }
}

static void attend_values(const struct attend_args *a, const struct attend_room *room, int64_t P,
                          const struct attend_part *t) {
    const int64_t D = a->head_size, pairs = t->rows * (a->heads / a->kv_heads);
    const enum dtype dtype = a->v.dtype;
    const bool cache = a->v.layout == LAYOUT_DEVICE;
    const char *head = cache ? cache_head(&a->v, t->from, t->g, D) : NULL;
    if (few_fits(pairs, D) && (cache || !is_block_format(dtype))) {
        const char *rows = cache ? head
                                 : (const char *)a->v.data + (size_t)t->from * a->v.row_bytes +
                                       numbers_bytes(dtype, t->g * D);
        if (cache) value_scales(dtype, head, D, t->end, room->rows);
        few_values_run(dtype, rows, cache ? codes_bytes(dtype, D) : a->v.row_bytes, room->rows,
                       t->begin, t->end, D, room->p, pairs, t->next, a->k.dtype, room->o, P);
        return;
    }
    if (cache) values_unpack(&a->v, head, D, t->begin, t->end, room->rows, room->values);
    else values_copy(&a->v, t->from, t->end, t->g * D, D, room->values);
    const struct left left = {room->p, KEYS, false};
    for (int64_t d = 0; d < D; d += PANEL)
        for (int64_t i = 0; i < pairs; i += TILE_ROWS) {
            const int64_t k = t->first[i / TILE_ROWS], keys = t->limit[i / TILE_ROWS] - k;
            if (keys > 0)
                tile_run(&left, i, round_up(min_i64(TILE_ROWS, pairs - i), 3), k, keys,
                         room->values + d * KEYS + k * PANEL, PANEL, PANEL,
                         room->o + d * P + i * PANEL, false);
        }
}

// o, m and l of every pair of the part, of which some key is seen; q is in place.
static void attend_chunk(const struct attend_args *a, const struct attend_room *room, int64_t P,
                         const struct attend_part *t) {
    const int64_t group = a->heads / a->kv_heads, pairs = t->rows * group;
    attend_scores(a, room, P, t);
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t row = t->row + i / group, lo = max_i64(0, a->lo[row] - t->from),
                      hi = min_i64(KEYS, a->hi[row] - t->from);
        float *scores = room->scores + i * PANEL;
        if (lo >= hi) {
            memset(room->p + i * KEYS, 0, KEYS * sizeof(float));
            continue;
        }
        if (a->softcap > 0)
            for (int64_t c = lo / PANEL * PANEL; c < hi; c += PANEL)
                cap_numbers(scores + c * P, min_i64(PANEL, hi - c), a->scale, a->softcap);
        softmax_chunk(scores, P * PANEL, lo, hi, t->first[i / TILE_ROWS], t->limit[i / TILE_ROWS],
                      a->softcap > 0 ? 1 : a->scale, room->p + i * KEYS, &room->m[i], &room->l[i]);
        if (a->drop.below > 0)
            probabilities_drop(a, row, t->g * group + i % group, t->from, hi, room->p + i * KEYS);
    }
    attend_values(a, room, P, t);
}

// Joins a chunk's (m, l, o) to what was summed before; o's pieces of 32 are `next_panel` apart.
static void attend_join(float *sum_m, float *sum_l, float *sum_o, float m, float l, const float *o,
                        int64_t next_panel, int64_t D) {
    if (*sum_l == 0) { // the first
        *sum_m = m, *sum_l = l;
        for (int64_t d = 0; d < D; d += PANEL)
            memcpy(sum_o + d, o + d / PANEL * next_panel, PANEL * sizeof(float));
        return;
    }
    const float now = m > *sum_m ? m : *sum_m;
    float e[2][VW];
    v_store(e[0], v_exp(v_set1(*sum_m - now)));
    v_store(e[1], v_exp(v_set1(m - now)));
    const vf old_by = v_set1(e[0][0]), new_by = v_set1(e[1][0]);
    for (int64_t d = 0; d < D; d += VW) {
        const vf part = v_mul(new_by, v_load(o + d / PANEL * next_panel + d % PANEL));
        v_store(sum_o + d, v_fma(old_by, v_load(sum_o + d), part));
    }
    const float kept = *sum_l * e[0][0], added = l * e[1][0];
    *sum_l = kept + added;
    *sum_m = now;
}

static void attend_write(const struct attend_args *a, int64_t i, int64_t h, float m, float l,
                         const float *o) {
    float *out = row_f32(&a->out, i) + h * a->head_size;
    const vf by = v_set1(l > 0 || l != l ? dropout_factor(&a->drop) / l : 0);
    for (int64_t d = 0; d < a->head_size; d += VW)
        v_store_n(out + d, l == 0 ? v_zero() : v_mul(by, v_load(o + d)), a->head_size - d);
    if (a->lse) a->lse[i * a->heads + h] = l == 0 ? -INFINITY : (float)((double)m + log((double)l));
}

static void queries_copy(const struct tensor *q, int64_t row, int64_t rows, int64_t group,
                         int64_t g, int64_t D, float *to) {
    const int64_t wide = round_up(D, PANEL), pairs = rows * group;
    for (int64_t i = 0; i < pairs; i++, to += wide) {
        memcpy(to, row_f32(q, row + i / group) + (g * group + i % group) * D,
               (size_t)D * sizeof(float));
        memset(to + D, 0, (size_t)(wide - D) * sizeof(float));
    }
    memset(to, 0, (size_t)((round_up(pairs, TILE_ROWS) - pairs) * wide) * sizeof(float));
}

// Row i sees some key of the chunk at `from`.
static bool row_sees(const struct attend_args *a, int64_t i, int64_t from) {
    return max_i64(a->lo[i], from) < min_i64(a->hi[i], from + KEYS);
}

// The keys of a head from row j of a cache on, to be asked for; among rows nothing is.
static const char *keys_at(const struct attend_args *a, int64_t j, int64_t g) {
    return a->k.layout == LAYOUT_DEVICE ? cache_head(&a->k, j, g, a->head_size) : a->k.data;
}

// A piece is a range of (tile, kv head).
static void attend_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_job *job = arg;
    const struct attend_args *a = job->a;
    const int64_t G = a->kv_heads, group = a->heads / G, D = a->head_size,
                  wide = round_up(D, PANEL), P = job->pairs_max;
    struct attend_room room;
    const size_t bytes = attend_room(&room, NULL, P, D);
    attend_room(&room, cpu_scratch(thread, SLOT_A, bytes), P, D);
    for (int64_t t = lo; t < hi; t++) {
        struct attend_part part = {.row = job->first[t / G], .g = t % G};
        part.rows = job->first[t / G + 1] - part.row;
        const int64_t row = part.row, pairs = part.rows * group;
        int64_t start = INT64_MAX, end = 0;
        for (int64_t i = row; i < row + part.rows; i++)
            if (a->lo[i] < a->hi[i]) start = min_i64(start, a->lo[i]), end = max_i64(end, a->hi[i]);
        if (a->k.layout == LAYOUT_DEVICE) start = start / KEYS * KEYS;
        for (int64_t i = 0; i < pairs; i++) room.sum_m[i] = -INFINITY, room.sum_l[i] = 0;
        queries_copy(&a->q, row, part.rows, group, part.g, D, room.q);
        for (part.from = start; part.from < end; part.from += KEYS) {
            if (!attend_part(a, &part)) continue;
            part.next = keys_at(a, part.from + KEYS < end ? part.from + KEYS : part.from, part.g);
            attend_chunk(a, &room, P, &part);
            for (int64_t i = 0; i < pairs; i++)
                if (row_sees(a, row + i / group, part.from))
                    attend_join(&room.sum_m[i], &room.sum_l[i], room.sum_o + i * wide, room.m[i],
                                room.l[i], room.o + i * PANEL, P * PANEL, D);
        }
        for (int64_t i = 0; i < pairs; i++)
            attend_write(a, row + i / group, part.g * group + i % group, room.sum_m[i],
                         room.sum_l[i], room.sum_o + i * wide);
    }
}

// The split way: a piece is a range of (tile, chunk, kv head), the heads of a chunk one after the
// other; then a piece is a range of (row, head), to join the chunks.
static int64_t split_origin(const struct attend_job *job, int64_t row) {
    return job->a->k.layout == LAYOUT_DEVICE ? job->origin : job->a->lo[row];
}
static void attend_split_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_job *job = arg;
    const struct attend_args *a = job->a;
    const int64_t G = a->kv_heads, group = a->heads / G, D = a->head_size, P = job->pairs_max;
    struct attend_room room;
    const size_t bytes = attend_room(&room, NULL, P, D);
    attend_room(&room, cpu_scratch(thread, SLOT_A, bytes), P, D);
    for (int64_t t = lo; t < hi; t++) {
        const int64_t chunk = t / G % job->chunks, tile = t / G / job->chunks;
        struct attend_part part = {.row = job->first[tile], .g = t % G};
        part.rows = job->first[tile + 1] - part.row;
        const int64_t next = min_i64(t + 1, hi - 1);
        part.from = split_origin(job, part.row) + chunk * KEYS;
        part.next = keys_at(a, job->origin + next / G % job->chunks * KEYS, next % G);
        if (!attend_part(a, &part)) continue;
        queries_copy(&a->q, part.row, part.rows, group, part.g, D, room.q);
        attend_chunk(a, &room, P, &part);
        for (int64_t i = 0; i < part.rows * group; i++) {
            const int64_t pair = (part.row + i / group) * a->heads + part.g * group + i % group;
            float *to = job->parts + (pair * job->chunks + chunk) * job->part_stride;
            for (int64_t d = 0; d < D; d += PANEL)
                memcpy(to + d, room.o + d * P + i * PANEL, PANEL * sizeof(float));
            to[job->part_stride - 2] = room.m[i], to[job->part_stride - 1] = room.l[i];
        }
    }
}

static void attend_join_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_job *job = arg;
    const struct attend_args *a = job->a;
    float *o = cpu_scratch(thread, SLOT_B, (size_t)round_up(a->head_size, PANEL) * sizeof(float));
    for (int64_t p = lo; p < hi; p++) {
        const int64_t i = p / a->heads, origin = split_origin(job, i);
        float m = -INFINITY, l = 0;
        for (int64_t c = 0; c < job->chunks; c++) {
            if (!row_sees(a, i, origin + c * KEYS)) continue;
            const float *part = job->parts + (p * job->chunks + c) * job->part_stride;
            attend_join(&m, &l, o, part[job->part_stride - 2], part[job->part_stride - 1], part,
                        PANEL, a->head_size);
        }
        attend_write(a, i, p % a->heads, m, l, o);
    }
}

// Tiles: neighbours that begin at the same key, or in a cache see some key in common.
static void attend_tiles(struct attend_job *job, int32_t *first, int64_t rows_each) {
    const struct attend_args *a = job->a;
    const bool cache = a->k.layout == LAYOUT_DEVICE;
    int64_t start = INT64_MAX, end = 0, longest = 0;
    for (int64_t i = 0; i < a->q.rows; i++) {
        assert(a->hi[i] <= a->lo[i] || (a->lo[i] >= 0 && a->hi[i] <= a->k.rows));
        bool joins = i > 0 && i - first[job->tiles - 1] < rows_each;
        if (joins) joins = cache ? a->lo[i] < a->hi[i - 1] && a->lo[i - 1] < a->hi[i]
                                 : a->lo[i] == a->lo[i - 1];
        if (!joins) first[job->tiles++] = (int32_t)i;
        if (a->lo[i] >= a->hi[i]) continue;
        start = min_i64(start, a->lo[i]), end = max_i64(end, a->hi[i]);
        longest = max_i64(longest, (int64_t)a->hi[i] - a->lo[i]);
    }
    first[job->tiles] = (int32_t)a->q.rows;
    job->first = first;
    job->longest = longest;
    job->origin = start == INT64_MAX ? 0 : start / KEYS * KEYS;
    job->chunks = ceil_div(cache ? max_i64(0, end - job->origin) : longest, KEYS);
}

static void attend(const struct attend_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(is_f32(&a->out) && is_f32(&a->q) && same_shape(&a->out, &a->q) &&
           same_shape(&a->k, &a->v) && a->k.layout == a->v.layout);
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(is_cache(&a->k, a->head_size) && is_cache(&a->v, a->head_size));
    assert(a->drop.below < 65536 && (a->drop.below == 0 || a->k.layout == LAYOUT_ROWS));
    const int64_t n = a->q.rows, group = a->heads / a->kv_heads, D = a->head_size,
                  wide = round_up(D, PANEL);
    const int64_t rows_each = max_i64(1, TILE_PAIRS / group);
    assert(group <= 1 << 10);
    if (n == 0) return;
    struct attend_job job = {
        .a = a, .pairs_max = round_up(rows_each * group, TILE_ROWS), .part_stride = wide + 2};
    const bool split = n <= SPLIT_ROWS;
    const size_t list = arena_round((size_t)(n + 1) * sizeof(int32_t));
    // By the capacity of the cache, so that the room stays while a text grows.
    const int64_t chunks_most = ceil_div(a->k.rows, KEYS) + 1;
    const size_t parts =
        split ? (size_t)(n * a->heads * chunks_most * job.part_stride) * sizeof(float) : 0;
    char *shared = cpu_scratch(0, SLOT_SHARED, list + parts);
    job.parts = (float *)(void *)(shared + list);
    attend_tiles(&job, (int32_t *)(void *)shared, rows_each);
    struct attend_room room;
    cpu_scratch_reserve(SLOT_A, attend_room(&room, NULL, job.pairs_max, D));
    cpu_scratch_reserve(SLOT_B, (size_t)wide * sizeof(float));
    if (split && job.chunks > 1) {
        // Some neighbours each, so that a thread knows what it reads next.
        const int64_t items = job.tiles * job.chunks * a->kv_heads;
        pool_for(items, max_i64(1, items / (4 * pool_threads())), attend_split_piece, &job);
        pool_for(n * a->heads, max_i64(1, 128 / job.chunks), attend_join_piece, &job);
    } else {
        pool_for(job.tiles * a->kv_heads,
                 max_i64(1, (1 << 15) / max_i64(1, job.longest * D *
                                                       min_i64(job.pairs_max, n * group))),
                 attend_piece, &job);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Backward.

struct attend_back_room {
    float *q, *dout, *out;  // [pairs][Dw]
    float *turned;          // [2][D][32]
    float *scores, *slopes; // [KEYS / 32][pairs][32]: Q K^T, dout V^T
    float *p, *ds;          // [pairs][KEYS_WIDE]
    float *keys, *values;   // [KEYS / 32][D][32], transposed
    float *lines;           // [Dw / 32][KEYS][32], keys as they are
    float *dk, *dv;         // [Dw / 32][KEYS_WIDE][32]
    float *dq;              // [TILE_ROWS][32]
    float *delta;           // [pairs]
};
static size_t attend_back_room(struct attend_back_room *room, float *base, int64_t pairs,
                               int64_t D) {
    const int64_t wide = round_up(D, PANEL);
    int64_t used = 0;
    room->q = room_take(base, &used, pairs * wide);
    room->dout = room_take(base, &used, pairs * wide);
    room->out = room_take(base, &used, pairs * wide);
    room->turned = room_take(base, &used, 2 * D * PANEL);
    room->scores = room_take(base, &used, pairs * KEYS);
    room->slopes = room_take(base, &used, pairs * KEYS);
    room->p = room_take(base, &used, pairs * KEYS_WIDE);
    room->ds = room_take(base, &used, pairs * KEYS_WIDE);
    room->keys = room_take(base, &used, KEYS * D);
    room->values = room_take(base, &used, KEYS * D);
    room->lines = room_take(base, &used, KEYS * wide);
    room->dk = room_take(base, &used, KEYS_WIDE * wide);
    room->dv = room_take(base, &used, KEYS_WIDE * wide);
    room->dq = room_take(base, &used, TILE_ROWS * PANEL);
    room->delta = room_take(base, &used, pairs);
    return (size_t)used * sizeof(float);
}

// delta = dout . out, in the order in which dout . v is summed, so that a lone key's slope is
// exactly zero.
static void deltas(const struct attend_back_room *room, int64_t pairs, int64_t D) {
    const int64_t wide = round_up(D, PANEL);
    float *dout = room->turned, *out = dout + D * PANEL, sums[PANEL];
    for (int64_t i = 0; i < pairs; i += PANEL) {
        const int64_t count = min_i64(PANEL, pairs - i);
        panel_transpose(room->dout + i * wide, wide, count, D, dout);
        panel_transpose(room->out + i * wide, wide, count, D, out);
        for (int64_t l = 0; l < PANEL; l += VW)
            for (int64_t k = 0; k < D; k += BLOCK) {
                vf chain = v_zero();
                for (int64_t d = k; d < min_i64(D, k + BLOCK); d++)
                    chain = v_fma(v_load(dout + d * PANEL + l), v_load(out + d * PANEL + l), chain);
                v_store(sums + l, k ? v_add(v_load(sums + l), chain) : chain);
            }
        memcpy(room->delta + i, sums, (size_t)count * sizeof(float));
    }
}

// What dropout makes of a pair's keys: the factor of key c of the chunk is at[c + first], for keys that the pair sees.
struct factors {
    float at[2 * PANEL + KEYS_WIDE];
    int64_t first;
};
// shift: which of all its keys the pair has at the begin of the chunk, below 0 where it sees none yet.
static void factors_make(struct factors *f, const struct dropout *d, struct rng_row row, int64_t shift) {
    const int64_t begin = max_i64(0, shift) / PANEL * PANEL;
    for (size_t c = 0; c < COUNT_OF(f->at); c++) f->at[c] = 1;
    drop_run(row, (vu)v_set1_words((int32_t)d->below), v_set1(dropout_factor(d)), begin, KEYS + PANEL, f->at + PANEL);
    f->first = PANEL + shift - begin;
}

// p and ds of one pair for keys [0, end) of a chunk, of which it sees [lo, hi). f may be NULL.
static void slopes_chunk(const float *scores, const float *slopes, int64_t next_panel, int64_t lo,
                         int64_t hi, int64_t end, float scale, float lse, float delta, const struct factors *f,
                         float *p, float *ds) {
    const vf k = v_set1(scale), shift = v_set1(lse), d = v_set1(delta);
    for (int64_t c = 0; c < end; c += VW) {
        vf e = v_zero(), s = v_zero();
        if (c + VW > lo && c < hi) {
            const int64_t at = c / PANEL * next_panel + c % PANEL;
            e = v_exp(v_sub(v_mul(k, v_load(scores + at)), shift));
            const vf factor = f ? v_load(f->at + f->first + c) : v_set1(1), slope = v_load(slopes + at);
            s = v_mul(v_mul(k, e), v_sub(f ? v_mul(factor, slope) : slope, d));
            if (f) e = v_mul(factor, e);
            e = v_first_or(e, hi - c, 0), s = v_first_or(s, hi - c, 0);
            if (c < lo) {
                float keep[2][VW];
                v_store(keep[0], e), v_store(keep[1], s);
                for (int64_t l = 0; l < lo - c; l++) keep[0][l] = keep[1][l] = 0;
                e = v_load(keep[0]), s = v_load(keep[1]);
            }
        }
        v_store(p + c, e);
        v_store(ds + c, s);
    }
}

// One tile of queries, rows [row, row + rows), against the chunk of keys [from, from + count).
static void attend_back_tile(const struct attend_back_args *a, const struct attend_back_room *room,
                             int64_t P, int64_t row, int64_t rows, int64_t g, int64_t from,
                             int64_t count) {
    const int64_t H = a->heads, group = H / a->kv_heads, D = a->head_size,
                  wide = round_up(D, PANEL), pairs = rows * group;
    int64_t end = 0; // keys of the chunk that anybody here sees
    for (int64_t r = row; r < row + rows; r++)
        if (a->hi[r] > a->lo[r] && a->lo[r] < from + count)
            end = max_i64(end, min_i64(count, a->hi[r] - from));
    if (end <= 0) return;
    queries_copy(&a->q, row, rows, group, g, D, room->q);
    queries_copy(&a->dout, row, rows, group, g, D, room->dout);
    queries_copy(&a->out, row, rows, group, g, D, room->out);
    deltas(room, pairs, D);
    const int64_t stored = round_up(round_up(end, TILE_ROWS), VW);
    for (int64_t i = 0; i < pairs; i += TILE_ROWS) {
        const int64_t some = min_i64(TILE_ROWS, pairs - i), whole = round_up(some, 3);
        int64_t limit = 0;
        for (int64_t r = i / group; r < rows && r * group < i + TILE_ROWS; r++)
            limit = max_i64(limit, a->hi[row + r] - from);
        limit = min_i64(limit, end);
        for (int64_t j = 0; j < limit; j += PANEL) {
            scores_of(room->q, wide, i, whole, room->keys + j * D, D,
                      room->scores + j * P + i * PANEL);
            scores_of(room->dout, wide, i, whole, room->values + j * D, D,
                      room->slopes + j * P + i * PANEL);
        }
        for (int64_t r = i; r < i + some; r++) {
            const int64_t at = row + r / group, h = g * group + r % group;
            struct factors f;
            const bool drops = a->drop.below > 0;
            if (drops) factors_make(&f, &a->drop, dropout_row(&a->drop, at, h), from - a->lo[at]);
            slopes_chunk(room->scores + r * PANEL, room->slopes + r * PANEL, P * PANEL,
                         a->lo[at] - from, min_i64(end, a->hi[at] - from), stored, a->scale,
                         a->lse[at * H + h], room->delta[r], drops ? &f : NULL,
                         room->p + r * KEYS_WIDE, room->ds + r * KEYS_WIDE);
        }
        const struct left ds = {room->ds, KEYS_WIDE, false};
        for (int64_t d = 0; d < D && limit > 0; d += PANEL) {
            tile_run(&ds, i, whole, 0, limit, room->lines + d * KEYS, PANEL, PANEL, room->dq,
                     false);
            for (int64_t r = 0; r < some; r++)
                sums_write(room->dq + r * PANEL, 1, min_i64(PANEL, D - d),
                           row_f32(&a->dq, row + (i + r) / group) +
                               (g * group + (i + r) % group) * D + d,
                           0, 1, true);
        }
    }
    // Pairs before the first that sees a key have zeros there.
    for (int64_t j = 0; j < end; j += TILE_ROWS) {
        int64_t first = 0;
        while (first < rows - 1 && a->hi[row + first] - from <= j) first++;
        first *= group;
        const struct left p = {room->p + first * KEYS_WIDE, KEYS_WIDE, true},
                          ds = {room->ds + first * KEYS_WIDE, KEYS_WIDE, true};
        for (int64_t d = 0; d < D; d += PANEL)
            for (int64_t r = 0; r < pairs - first;
                 r += BLOCK) { // more than one block only with very many heads
                const int64_t terms = min_i64(BLOCK, pairs - first - r);
                const int64_t to = d * KEYS_WIDE + j * PANEL, b = (first + r) * wide + d;
                tile_run(&p, j, TILE_ROWS, r, terms, room->dout + b, wide, PANEL, room->dv + to,
                         true);
                tile_run(&ds, j, TILE_ROWS, r, terms, room->q + b, wide, PANEL, room->dk + to,
                         true);
            }
    }
}

static void attend_back_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct attend_back_args *a = arg;
    const int64_t G = a->kv_heads, group = a->heads / G, D = a->head_size,
                  wide = round_up(D, PANEL);
    const int64_t rows_each = max_i64(1, TILE_PAIRS / group),
                  P = round_up(rows_each * group, TILE_ROWS);
    struct attend_back_room room;
    const size_t bytes = attend_back_room(&room, NULL, P, D);
    attend_back_room(&room, cpu_scratch(thread, SLOT_A, bytes), P, D);
    for (int64_t t = lo; t < hi; t++) {
        const int64_t start = t / G * a->segment, end = start + a->segment, g = t % G;
        for (int64_t i = start; i < end; i++)
            memset(row_f32(&a->dq, i) + g * group * D, 0, (size_t)(group * D) * sizeof(float));
        for (int64_t from = start; from < end; from += KEYS) {
            const int64_t count = min_i64(KEYS, end - from);
            for (int64_t j = 0; j < count; j += PANEL) {
                keys_transpose(&a->k, from + j, min_i64(PANEL, count - j), g * D, D, NULL,
                               room.keys + j * D);
                keys_transpose(&a->v, from + j, min_i64(PANEL, count - j), g * D, D, NULL,
                               room.values + j * D);
            }
            values_copy(&a->k, from, count, g * D, D, room.lines);
            memset(room.dk, 0, (size_t)(KEYS_WIDE * wide) * sizeof(float));
            memset(room.dv, 0, (size_t)(KEYS_WIDE * wide) * sizeof(float));
            for (int64_t row = start; row < end; row += rows_each)
                attend_back_tile(a, &room, P, row, min_i64(rows_each, end - row), g, from, count);
            for (int64_t j = 0; j < count; j++)
                for (int64_t d = 0; d < D; d += PANEL) {
                    const size_t n = (size_t)min_i64(PANEL, D - d) * sizeof(float);
                    memcpy(row_f32(&a->dk, from + j) + g * D + d,
                           room.dk + d * KEYS_WIDE + j * PANEL, n);
                    memcpy(row_f32(&a->dv, from + j) + g * D + d,
                           room.dv + d * KEYS_WIDE + j * PANEL, n);
                }
        }
    }
}

static void attend_back(const struct attend_back_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(is_f32(&a->dq) && is_f32(&a->dout) && is_f32(&a->out) && is_f32(&a->q) && a->lse);
    assert(same_shape(&a->dq, &a->q) && same_shape(&a->dout, &a->q) && same_shape(&a->out, &a->q));
    assert(is_f32(&a->dk) && is_f32(&a->dv) && is_f32(&a->k) && is_f32(&a->v));
    assert(same_shape(&a->dk, &a->k) && same_shape(&a->dv, &a->v) && same_shape(&a->k, &a->v));
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(a->k.rows == a->q.rows && a->segment > 0 && a->q.rows % a->segment == 0 && a->drop.below < 65536);
    const int64_t group = a->heads / a->kv_heads, rows_each = max_i64(1, TILE_PAIRS / group);
    struct attend_back_room room;
    cpu_scratch_reserve(
        SLOT_A,
        attend_back_room(&room, NULL, round_up(rows_each * group, TILE_ROWS), a->head_size));
    pool_for(a->q.rows / a->segment * a->kv_heads, 1, attend_back_piece, (void *)a);
}

static void fill_attend(struct backend *b) {
    b->store_rows = store_rows;
    b->attend = attend;
    b->attend_back = attend_back;
}
