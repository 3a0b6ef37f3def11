// attend_bf16.cu: attention on tensor cores, for prompts and training.
//
// A block takes WARPS * 16 pairs of one kv head, 16 to a warp, and walks over their keys in steps of STEP, which begin at
// multiples of STEP within a part (Dao 2023, FlashAttention-2, section 3.1):
//
//   S = Q K^T ; m' = max(m, S) ; P = 2^(c (S - m')) , c = |scale| log2 e ; l = 2^(c (m - m')) l + sum P
//   O = 2^(c (m - m')) O + P V
//
// q, k, v and p are rounded to bf16, sums are f32. Every part has m, l and O of its own, which are joined to those of the parts
// before (attend_tiles.cuh). P stays in registers: the fragment of a product is that of a factor. Where a pair does not see a
// key, or a warp leaves out a step that none of its pairs sees, p is 0 and m stays, so that nothing changes: a pair's
// numbers are its own.
//
// Keys and values come as bf16 into two stages of shared memory, by copies that go on while the stage before is multiplied. What
// is not bf16 with heads as wide as a tile is made so first, once for all tiles that read it: 4 bytes of traffic for a number of
// f16 beside 2 for every tile of 128 pairs.
//
// The floor for D = 128: a step of 64 keys takes 2 MFMA for 128 pairs, some 1600 cycles at the rate of mma.sync on Hopper, and 32 KiB
// from L2, 20 bytes a cycle and multiprocessor of some 24 that there are; tiles of 64 pairs would wait for L2.
#include "cuda/attend_tiles.cuh"

// ---------------------------------------------------------------------------------------------------------------
// Copies in bf16.

enum { ROUND_ROWS = 64, ROUND_THREADS = 256 }; // of a block

struct round_job {
    struct tensor from, to;
    enum kind kind;
    int heads, D, wide;
    const int32_t *lo, *hi;
    int64_t queries;
};
__global__ void __launch_bounds__(ROUND_THREADS) attend_round_kernel(struct round_job r) {
    const int64_t first = (int64_t)blockIdx.x * ROUND_ROWS, end = min(first + ROUND_ROWS, r.from.rows);
    if (r.lo) { // rows that nobody sees are left out; every warp finds out by itself
        int least = INT32_MAX, most = 0;
        for (int64_t i = (int)threadIdx.x % WARP; i < r.queries; i += WARP)
            if (r.lo[i] < r.hi[i]) least = min(least, r.lo[i]), most = max(most, r.hi[i]);
        if (end <= warp_least(least) || first >= -warp_least(-most)) return;
    }
    const int eights = r.wide / 8;
    for (int64_t e = threadIdx.x; e < (end - first) * r.heads * eights; e += ROUND_THREADS) {
        const int c = (int)(e % eights) * 8, head = (int)(e / eights % r.heads);
        const int64_t i = first + e / eights / r.heads;
        float x[8] = {0};
        const char *from = (const char *)row_at(r.from, i) + head_bytes(r.from.dtype, (int64_t)head * r.D);
        if (c < r.D) read_eight(r.kind, from, r.from.dtype, c, r.D, x);
        uint4 *to = (uint4 *)(void *)((uint16_t *)row_at(r.to, i) + head * r.wide + c);
        *to = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    }
}

struct tensor attend_rounded(const struct tensor &from, int64_t heads, int64_t wide, void *to, const int32_t *lo, const int32_t *hi,
                             int64_t queries) {
    struct round_job r;
    memset(&r, 0, sizeof r);
    r.from = from, r.to = from, r.heads = (int)heads, r.D = (int)(from.cols / heads), r.wide = (int)wide;
    r.kind = kind_of(from, r.D);
    r.lo = lo, r.hi = hi, r.queries = queries;
    r.to.data = to, r.to.dtype = DTYPE_BF16, r.to.cols = heads * wide, r.to.row_bytes = (size_t)r.to.cols * 2;
    if (from.rows) LAUNCH((attend_round_kernel), ceil_div(from.rows, ROUND_ROWS), ROUND_THREADS, 0, r);
    return r.to;
}

// ---------------------------------------------------------------------------------------------------------------
// Where a block is: a step of a part of a walk. All threads of it agree.

struct place {
    struct walk w;
    int part, step, steps; // steps: the end within the part
};
template <int STEP> INLINE bool place_next(struct place *at, const struct attend_job &j, const int32_t *lo, const int32_t *hi, int count) {
    if (++at->step < at->steps) return true;
    for (at->part += parts_apart(j);; at->part += parts_apart(j)) {
        while (at->w.origin < 0 || at->part >= walk_parts(at->w)) {
            if (!walk_next<true>(&at->w, lo, hi, count, j.cache)) return false;
            at->part = walk_part(j, at->w);
        }
        int begin, end;
        tile_sees<true>(at->w, lo, hi, count, j.cache, at->w.origin + at->part * PART, &begin, &end);
        if (begin >= end) continue;
        at->step = begin / STEP, at->steps = (end + STEP - 1) / STEP;
        return true;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The tile of a block: 16 pairs for each warp, of which a thread has rows lane / 4 and lane / 4 + 8 (which = 0, 1) of all fragments.
// What does not fit into its registers lies in shared memory: queries of wide heads, and O of the parts before.

template <int WIDE> static __host__ __device__ constexpr bool q_in_shared(void) { return WIDE == 64 || WIDE >= 128; }
template <int WIDE> static __host__ __device__ constexpr bool total_in_shared(void) { return WIDE <= 64 || WIDE > 128; }
template <int WIDE, int STEP, int WARPS> static size_t bf16_shared_bytes(void) {
    const size_t stages = (size_t)(4 * STEP * (WIDE + TILE_PAD)) * 2;
    const size_t q = q_in_shared<WIDE>() ? (size_t)(WARPS * 16 * (WIDE + TILE_PAD)) * 2 : 0;
    return stages + q + (total_in_shared<WIDE>() ? (size_t)(WARPS * WARP * (WIDE / 2)) * sizeof(float) : 0);
}

template <int WIDE> struct tile {
    uint32_t q[q_in_shared<WIDE>() ? 1 : WIDE / 16][4];
    float o[WIDE / 8][4]; // of the part at hand
    float m[2], l[2];     // of it: m scaled, in bits; l of the thread's own columns
    const uint16_t *shared_q;
    const uint2 *random; // of the warp's 16 pairs
    float c;             // of the exponent
};
INLINE int pair_of(int which) { return (int)threadIdx.x / WARP * 16 + (int)threadIdx.x % WARP / 4 + which * 8; }

// STEP rows from row `row` on into a stage, zeros in the place of rows outside [first, end).
template <int WIDE, int STEP> INLINE void stage_load(uint16_t *stage, const struct tensor &t, int g, int row, int first, int end) {
    // unrolled it takes registers that others need
    UNROLL_BY(1) for (int e = (int)threadIdx.x; e < STEP * (WIDE / 8); e += (int)blockDim.x) {
        const int r = e / (WIDE / 8), c = e % (WIDE / 8) * 8;
        const bool there = row + r >= first && row + r < end;
        cp_async16(stage + r * (WIDE + TILE_PAD) + c, (const uint16_t *)row_at(t, there ? row + r : first) + g * WIDE + c, there);
    }
}

// Queries as factors, of the sign of the scale; c > 0, so that what is not seen is 2^-inf.
template <int WIDE> INLINE void tile_open(struct tile<WIDE> *t, const struct attend_job &j, int g, int64_t pair, uint16_t *shared_q) {
    const int lane = (int)threadIdx.x % WARP, D = (int)j.a.head_size;
    const float sign = j.a.scale < 0 ? -1 : 1;
    t->c = 1.44269504088896f * (j.a.softcap > 0 ? j.a.softcap : fmaxf(fabsf(j.a.scale), 1e-30f));
    t->shared_q = shared_q + (int)threadIdx.x / WARP * 16 * (WIDE + TILE_PAD);
    UNROLL for (int which = 0; which < 2; which++) {
        const int64_t at = pair + pair_of(which);
        const bool there = at < j.pairs;
        const float *q = there ? row_f32(j.a.q, at / j.group) + head_of(j, g, at) * D : NULL;
        UNROLL for (int k = 0; k < WIDE / 16; k++)
            UNROLL for (int half = 0; half < 2; half++) {
                const int c = k * 16 + half * 8 + lane % 4 * 2;
                const uint32_t two = pack_bf16(there && c < D ? sign * q[c] : 0, there && c + 1 < D ? sign * q[c + 1] : 0);
                if (q_in_shared<WIDE>()) *(uint32_t *)(void *)(shared_q + pair_of(which) * (WIDE + TILE_PAD) + c) = two;
                else t->q[q_in_shared<WIDE>() ? 0 : k][half * 2 + which] = two;
            }
    }
}
template <int WIDE> INLINE void part_open(struct tile<WIDE> *t) {
    UNROLL for (int n = 0; n < WIDE / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) t->o[n][i] = 0;
    t->m[0] = t->m[1] = -INFINITY, t->l[0] = t->l[1] = 0;
}

// Scores of what is not seen become -inf. Column of s[n][i]: n * 8 + lane % 4 * 2 + i % 2; row: i / 2.
template <int STEP> INLINE void mask_scores(float s[STEP / 8][4], const int first[2], const int limit[2]) {
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int n = 0; n < STEP / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) {
            const int key = n * 8 + lane % 4 * 2 + i % 2;
            if (key < first[i / 2] || key >= limit[i / 2]) s[n][i] = -INFINITY;
        }
}
// Some p become 0. from: the number that the first key of the step is for the row, a multiple of STEP. A word serves two keys 16 apart.
template <int STEP> INLINE void drop_scores(float s[STEP / 8][4], const uint2 *random, uint32_t below, uint32_t from) {
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int i = 0; i < 4; i++) {
        const uint2 two = random[lane / 4 + i / 2 * 8];
        const struct rng_row row = {two.x, two.y};
        UNROLL for (int n = 0; n < STEP / 8; n++) {
            if (STEP >= 32 && n % 4 >= 2) continue;
            const uint32_t at = from + (uint32_t)(n * 8 + lane % 4 * 2 + i % 2), word = device_rng_word(row, at);
            const bool upper = STEP < 32 && at % 32 >= 16;
            if ((upper ? word >> 16 : word & 0xffff) < below) s[n][i] = 0;
            if (STEP >= 32 && word >> 16 < below) s[min(n + 2, STEP / 8 - 1)][i] = 0;
        }
    }
}

// m, l and P of a step out of its scores; what was summed before is scaled.
template <int WIDE, int STEP> INLINE void step_softmax(struct tile<WIDE> *t, float s[STEP / 8][4]) {
    UNROLL for (int which = 0; which < 2; which++) {
        float most = -INFINITY, sum = 0;
        UNROLL for (int n = 0; n < STEP / 8; n++) most = fmaxf(most, fmaxf(s[n][which * 2], s[n][which * 2 + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float now = fmaxf(t->m[which], __fmul_rn(most, t->c)), shift = now == -INFINITY ? 0 : now; // nothing seen yet: p is 0
        const float keep = exp2_fast(__fsub_rn(t->m[which], shift));
        t->m[which] = now;
        UNROLL for (int n = 0; n < STEP / 8; n++)
            UNROLL for (int i = which * 2; i < which * 2 + 2; i++) {
                s[n][i] = exp2_fast(fmaf(s[n][i], t->c, -shift));
                sum = __fadd_rn(sum, s[n][i]);
            }
        t->l[which] = fmaf(t->l[which], keep, sum);
        UNROLL for (int n = 0; n < WIDE / 8; n++) t->o[n][which * 2] *= keep, t->o[n][which * 2 + 1] *= keep;
    }
}

// A step: keys and values of STEP rows, of which a thread's rows see [first, limit). whole: all of the warp see all.
template <int WIDE, int STEP>
INLINE void tile_step(struct tile<WIDE> *t, const struct attend_args &a, const uint16_t *keys, const uint16_t *values,
                      const int first[2], const int limit[2], bool whole, uint32_t drop_from) {
    const int stride = WIDE + TILE_PAD;
    float s[STEP / 8][4];
    UNROLL for (int n = 0; n < STEP / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) s[n][i] = 0;
    UNROLL for (int k = 0; k < WIDE / 16; k++) {
        uint32_t here[4];
        if (q_in_shared<WIDE>()) tile_a(here, t->shared_q, stride, 0, k * 16);
        const uint32_t *q = q_in_shared<WIDE>() ? here : t->q[q_in_shared<WIDE>() ? 0 : k];
        UNROLL for (int n = 0; n < STEP / 16; n++) {
            uint32_t b[4];
            tile_b(b, keys, stride, n * 16, k * 16);
            mma_bf16(s[2 * n], q, b);
            mma_bf16(s[2 * n + 1], q, b + 2);
        }
    }
    if (a.softcap > 0) {
        const float by = __fdiv_rn(fmaxf(fabsf(a.scale), 1e-30f), a.softcap);
        UNROLL for (int n = 0; n < STEP / 8; n++)
            UNROLL for (int i = 0; i < 4; i++) s[n][i] = tanhf(__fmul_rn(s[n][i], by));
    }
    if (!whole) mask_scores<STEP>(s, first, limit);
    step_softmax<WIDE, STEP>(t, s);
    if (a.drop.below > 0) drop_scores<STEP>(s, t->random, a.drop.below, drop_from);
    UNROLL for (int k = 0; k < STEP / 16; k++) {
        uint32_t p[4];
        tile_a_of(p, s[2 * k], s[2 * k + 1]);
        UNROLL for (int n = 0; n < WIDE / 16; n++) {
            uint32_t b[4];
            tile_b_turned(b, values, stride, k * 16, n * 16);
            mma_bf16(t->o[2 * n], p, b);
            mma_bf16(t->o[2 * n + 1], p, b + 2);
        }
    }
}

// O of the parts before, in registers or in shared memory, where threads lie side by side.
template <int WIDE, int WARPS> struct totals {
    float here[total_in_shared<WIDE>() ? 1 : WIDE / 8][4];
    float *there;
};
template <int WIDE, int WARPS> INLINE float *total_at(struct totals<WIDE, WARPS> *t, int n, int i) {
    return total_in_shared<WIDE>() ? &t->there[(n * 4 + i) * WARPS * WARP] : &t->here[total_in_shared<WIDE>() ? 0 : n][i];
}

// The end of a part, of which a thread's rows saw something or not.
template <int WIDE, int WARPS>
INLINE void part_close(struct tile<WIDE> *t, struct totals<WIDE, WARPS> *total, struct joined state[2], const struct attend_job &j,
                       int g, int64_t pair, int part, const bool saw[2]) {
    UNROLL for (int which = 0; which < 2; which++) {
        float l = t->l[which];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        const float2 ml = make_float2(t->m[which], l);
        joined_scalars<true>(&state[which], ml, saw[which]);
        if (!saw[which]) continue;
        const int64_t at = pair + pair_of(which);
        UNROLL for (int n = 0; n < WIDE / 8; n++)
            UNROLL for (int i = 0; i < 2; i++) {
                const int c = n * 8 + (int)threadIdx.x % 4 * 2 + i;
                float *to = total_at(total, n, which * 2 + i);
                if (!j.split) *to = joined_number(state[which], *to, t->o[n][which * 2 + i]);
                else if (c < j.a.head_size) part_write(j, part, at / j.group, head_of(j, g, at), c, t->o[n][which * 2 + i], ml);
            }
    }
}

template <int WIDE, int STEP, int WARPS>
__global__ void __launch_bounds__(WARPS *WARP, WIDE <= 64 ? 2 : 1) attend_bf16_kernel(struct attend_job j) {
    const int PAIRS = WARPS * 16, STAGE = STEP * (WIDE + TILE_PAD), g = (int)blockIdx.y;
    SHARED_REST(uint16_t, room); // two stages of keys, two of values, q, O
    SHARED(int32_t, lo, WARPS * 16);
    SHARED(int32_t, hi, WARPS * 16);
    SHARED(uint2, random, WARPS * 16);
    uint16_t *shared_q = room + 4 * STAGE;
    const int64_t pair = tile_of(j) * PAIRS;
    tile_ranges(j, pair, PAIRS, lo, hi);
    for (int p = (int)threadIdx.x; p < PAIRS && j.a.drop.below > 0; p += WARPS * WARP) {
        const struct rng_row row = device_dropout_row(j.a.drop, (pair + p) / j.group, head_of(j, g, pair + p));
        random[p] = make_uint2(row.a, row.b);
    }
    struct tile<WIDE> t;
    t.random = random + (int)threadIdx.x / WARP * 16;
    tile_open(&t, j, g, pair, shared_q);
    part_open(&t);
    struct joined state[2] = {joined_nothing(), joined_nothing()};
    struct totals<WIDE, WARPS> total;
    total.there = (float *)(void *)(shared_q + (q_in_shared<WIDE>() ? PAIRS * (WIDE + TILE_PAD) : 0)) + threadIdx.x;
    UNROLL for (int n = 0; n < WIDE / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) *total_at(&total, n, i) = 0;
    __syncthreads();
    struct place next = {{-1, 0, 0}, -1, 0, 0};
    int origin = 0, part = -1, row = 0; // of the step at hand
    for (int stage = 1;; stage ^= 1) {  // the first turn only begins to load
        const bool here = part >= 0, more = place_next<STEP>(&next, j, lo, hi, PAIRS);
        const int next_row = next.w.origin + next.part * PART + next.step * STEP;
        cp_async_wait<0>();
        __syncthreads(); // the copies of all are there, and nobody reads the other stage any more
        if (more) {
            stage_load<WIDE, STEP>(room + (stage ^ 1) * STAGE, j.keys, g, next_row, next.w.first, next.w.end);
            stage_load<WIDE, STEP>(room + (2 + (stage ^ 1)) * STAGE, j.values, g, next_row, next.w.first, next.w.end);
        }
        cp_async_commit();
        if (here) {
            int first[2], limit[2];
            bool saw[2];
            UNROLL for (int which = 0; which < 2; which++) {
                const int from = lo[pair_of(which)], to = hi[pair_of(which)], part_from = origin + part * PART;
                const bool in = from < to && (j.cache || from == origin);
                first[which] = in ? max(0, from - row) : STEP, limit[which] = in ? min(STEP, to - row) : 0;
                saw[which] = in && max(part_from, from) < min(part_from + PART, to);
            }
            const bool any = first[0] < limit[0] || first[1] < limit[1];
            const bool all = max(first[0], first[1]) == 0 && min(limit[0], limit[1]) == STEP;
            if (__any_sync(0xffffffffu, any))
                tile_step<WIDE, STEP>(&t, j.a, room + stage * STAGE, room + (2 + stage) * STAGE, first, limit,
                __all_sync(0xffffffffu, all), (uint32_t)(row - origin));
            if (!more || next.part != part || next.w.origin != origin) part_close(&t, &total, state, j, g, pair, part, saw), part_open(&t);
        }
        if (!more) break;
        origin = next.w.origin, part = next.part, row = next_row;
    }
    if (j.split) return;
    UNROLL for (int i = 0; i < 4; i++) {
        const int64_t at = pair + pair_of(i / 2);
        UNROLL for (int n = 0; n < WIDE / 8; n++) {
            const int c = n * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
            if (at < j.pairs && c < j.a.head_size)
                attend_write<true>(j, at / j.group, head_of(j, g, at), c, state[i / 2], *total_at(&total, n, i));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The call.

bool attend_bf16_takes(const struct attend_args *a) {
    return a->precision == PRECISION_BF16 && cuda_has_bf16() && tile_width(a->head_size);
}

static bool as_it_lies(const struct tensor &t, int64_t D) { return t.dtype == DTYPE_BF16 && by_sixteen(t) && D == tile_width(D); }
static int pairs_of_tile(int64_t D) { return tile_width(D) > 128 ? 64 : 128; }

template <int WIDE, int STEP, int WARPS> static void bf16_launch(const struct attend_job *j, dim3 grid) {
    LAUNCH((attend_bf16_kernel<WIDE, STEP, WARPS>), grid, WARPS *WARP, (bf16_shared_bytes<WIDE, STEP, WARPS>()), *j);
}
static void bf16_start(const struct attend_job *given, dim3 grid) {
    struct attend_job job = *given, *j = &job;
    const struct attend_args *a = &j->a;
    const int wide = tile_width(a->head_size);
    const bool whole = a->k.layout == LAYOUT_ROWS;
    char *room = (char *)j->other;
    j->keys = a->k, j->values = a->v;
    if (!as_it_lies(a->k, a->head_size)) {
        j->keys = attend_rounded(a->k, a->kv_heads, wide, room, whole ? NULL : a->lo, a->hi, a->q.rows);
        room += rounded_bytes(a->k.rows, a->kv_heads, wide);
    }
    if (!as_it_lies(a->v, a->head_size)) j->values = attend_rounded(a->v, a->kv_heads, wide, room, whole ? NULL : a->lo, a->hi, a->q.rows);
    if (wide == 32) bf16_launch<32, 64, 8>(j, grid);
    else if (wide == 64) bf16_launch<64, 64, 8>(j, grid);
    else if (wide == 80) bf16_launch<80, 64, 8>(j, grid);
    else if (wide == 96) bf16_launch<96, 64, 8>(j, grid);
    else if (wide == 128 && cuda_shared_most() >= bf16_shared_bytes<128, 64, 8>() + 2048) bf16_launch<128, 64, 8>(j, grid);
    else if (wide == 128) bf16_launch<128, 32, 8>(j, grid); // GPUs with 99 KiB
    else if (cuda_shared_most() >= bf16_shared_bytes<256, 32, 4>() + 2048) bf16_launch<256, 32, 4>(j, grid);
    else bf16_launch<256, 16, 4>(j, grid);
}
void attend_bf16(struct attend_job *j) {
    const struct attend_args *a = &j->a;
    const size_t each = rounded_bytes(a->k.rows, a->kv_heads, tile_width(a->head_size));
    const int made = !as_it_lies(a->k, a->head_size) + !as_it_lies(a->v, a->head_size);
    attend_launches(j, pairs_of_tile(a->head_size), true, bf16_start, each * (size_t)made);
}
