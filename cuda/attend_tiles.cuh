// attend_tiles.cuh: what both precisions of attend share: which keys a tile of pairs walks over, and how parts are joined.
#ifndef LEHR_ATTEND_TILES_CUH
#define LEHR_ATTEND_TILES_CUH

#include "cuda/attend.cuh"
#include "cuda/rng.cuh"

enum { PART = CACHE_ROWS }; // keys

// One call, as its kernels see it.
struct attend_job {
    struct attend_args a;
    int group;     // query heads of a kv head
    int64_t pairs; // rows * group
    bool cache;    // parts are counted from row 0
    bool split;    // a block leaves the parts that it makes to be joined: every gridDim.z-th of its tile
    enum kind k_kind, v_kind;
    int64_t parts_most;
    float2 *part_ml; // of the split way: [part][row][head] m and l; o [part][row][head][D]
    float *part_o;
    void *other; // other_bytes of attend_launches
    struct tensor keys, values; // in bf16, heads padded to the width of a tile: of attend_bf16.cu
};
// Starts `start` over tiles of so many pairs, the split way where that is better, and joins the parts. base2: m is in bits.
void attend_launches(struct attend_job *j, int64_t pairs_of_tile, bool base2, void (*start)(const struct attend_job *j, dim3 grid),
                     size_t other_bytes);

// attend_bf16.cu: whether it takes this call, and the call.
bool attend_bf16_takes(const struct attend_args *a);
void attend_bf16(struct attend_job *j);

// The last rows of a prompt see the most keys: they begin first.
INLINE int64_t tile_of(const struct attend_job &j) { return j.split ? blockIdx.x : gridDim.x - 1 - blockIdx.x; }
INLINE int head_of(const struct attend_job &j, int g, int64_t pair) { return g * j.group + (int)(pair % j.group); }

// ---------------------------------------------------------------------------------------------------------------
// Which keys. In shared memory lo and hi of every pair of the tile; one that sees nothing has lo = hi = 0.

INLINE void tile_ranges(const struct attend_job &j, int64_t pair, int count, int32_t *lo, int32_t *hi) {
    for (int p = (int)threadIdx.x; p < count; p += (int)blockDim.x) {
        const bool there = pair + p < j.pairs;
        const int64_t row = there ? (pair + p) / j.group : 0;
        const int32_t first = there ? j.a.lo[row] : 0, limit = there ? j.a.hi[row] : 0;
        lo[p] = first < limit ? first : 0, hi[p] = first < limit ? limit : 0;
    }
}

// Pairs whose parts are counted from the same row walk together over keys [first, end): all pairs in a cache; among ROWS those
// of one document, one document after the other. So every pair has parts of its own even where a tile lies across documents.
struct walk { int origin, first, end; }; // begins with origin -1
INLINE bool in_walk(const struct walk &w, int32_t lo, int32_t hi, bool cache) { return lo < hi && (cache || lo == w.origin); }
// Over the pairs of a tile: by every thread itself, or where they are many (SHARED_OUT) by the lanes of every warp together.
template <bool SHARED_OUT> INLINE int tile_least(int x) { return SHARED_OUT ? warp_least(x) : x; }
#define FOR_PAIRS(p, count) for (int p = SHARED_OUT ? (int)threadIdx.x % WARP : 0; p < (count); p += SHARED_OUT ? WARP : 1)
template <bool SHARED_OUT> INLINE bool walk_next(struct walk *w, const int32_t *lo, const int32_t *hi, int count, bool cache) {
    int origin = INT32_MAX, end = 0;
    FOR_PAIRS(p, count)
        if (lo[p] < hi[p] && lo[p] > w->origin) origin = min(origin, lo[p]);
    origin = tile_least<SHARED_OUT>(origin);
    if (origin == INT32_MAX || (cache && w->origin >= 0)) return false;
    w->first = origin, w->origin = cache ? 0 : origin;
    FOR_PAIRS(p, count)
        if (in_walk(*w, lo[p], hi[p], cache)) end = max(end, hi[p]);
    w->end = -tile_least<SHARED_OUT>(-end);
    return true;
}
// The parts of a walk that are this block's: all, or with `split` every gridDim.z-th.
INLINE int parts_apart(const struct attend_job &j) { return j.split ? (int)gridDim.z : 1; }
INLINE int walk_part(const struct attend_job &j, const struct walk &w) { // the first
    const int first = (w.first - w.origin) / PART;
    if (!j.split) return first;
    const int behind = (int)blockIdx.z - first % (int)gridDim.z;
    return first + (behind < 0 ? behind + (int)gridDim.z : behind);
}
INLINE int walk_parts(const struct walk &w) { return (w.end - w.origin + PART - 1) / PART; } // the end
// Of the part from row `from` on, the keys that anybody sees.
template <bool SHARED_OUT>
INLINE void tile_sees(const struct walk &w, const int32_t *lo, const int32_t *hi, int count, bool cache, int64_t from, int *begin,
                      int *end) {
    int least = PART, most = 0;
    FOR_PAIRS(p, count) {
        if (!in_walk(w, lo[p], hi[p], cache)) continue;
        const int first = (int)max((int64_t)0, lo[p] - from), limit = (int)min((int64_t)PART, hi[p] - from);
        if (first < limit) least = min(least, first), most = max(most, limit);
    }
    *begin = tile_least<SHARED_OUT>(least), *end = -tile_least<SHARED_OUT>(-most);
}

// ---------------------------------------------------------------------------------------------------------------
// Joining parts (Dao 2023, FlashAttention-2, section 3.1): with M the larger of both maxima, what was summed before and what comes
// are multiplied by e^ of their own maximum less M. In base 2 maxima are in bits. Every product and sum is written out, as all
// ways of joining must round alike.

struct joined {
    float m, l;      // up to now
    float keep, add; // factors of the last join
    int saw;         // the last part had a key for this pair
};
INLINE struct joined joined_nothing(void) {
    struct joined s = {-INFINITY, 0, 0, 0, 0};
    return s;
}
INLINE float joined_number(const struct joined &s, float before, float part) {
    return fmaf(before, s.keep, __fmul_rn(part, s.add));
}
template <bool BASE2> INLINE void joined_scalars(struct joined *s, float2 ml, int saw) {
    s->saw = saw;
    if (!saw) return;
    const float most = fmaxf(s->m, ml.x);
    s->keep = BASE2 ? exp2_fast(__fsub_rn(s->m, most)) : expf(__fsub_rn(s->m, most));
    s->add = BASE2 ? exp2_fast(__fsub_rn(ml.x, most)) : expf(__fsub_rn(ml.x, most));
    s->m = most;
    s->l = joined_number(*s, s->l, ml.y);
}

INLINE int64_t part_at_row(const struct attend_job &j, int part, int64_t row, int head) {
    return (part * j.a.q.rows + row) * j.a.heads + head;
}
INLINE void part_write(const struct attend_job &j, int part, int64_t row, int head, int c, float o, float2 ml) {
    const int64_t at = part_at_row(j, part, row, head);
    j.part_o[at * j.a.head_size + c] = o;
    if (c == 0) j.part_ml[at] = ml;
}
INLINE float2 part_ml_at(const struct attend_job &j, int part, int64_t row, int head) { return j.part_ml[part_at_row(j, part, row, head)]; }
INLINE float part_number_at(const struct attend_job &j, int part, int64_t row, int head, int c) {
    return j.part_o[part_at_row(j, part, row, head) * j.a.head_size + c];
}

// Column c of the result; with column 0 goes the log-sum-exp.
template <bool BASE2>
INLINE void attend_write(const struct attend_job &j, int64_t row, int head, int c, const struct joined &s, float total) {
    const bool nothing = s.l == 0;
    row_f32(j.a.out, row)[head * j.a.head_size + c] = nothing ? 0 : __fmul_rn(device_dropout_factor(j.a.drop), __fdiv_rn(total, s.l));
    if (c || !j.a.lse) return;
    const float seen = BASE2 ? __fmul_rn(0.693147180559945f, __fadd_rn(s.m, log2f(s.l))) : __fadd_rn(s.m, logf(s.l));
    j.a.lse[row * j.a.heads + head] = nothing ? -INFINITY : seen;
}
#endif
