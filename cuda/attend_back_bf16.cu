// attend_back_bf16.cu: attention's gradients on tensor cores; what is computed and who owns which sum is told in attend_back.cu.
//
// A block has OWN pairs or keys, 16 to each of its four warps, in shared memory, and takes BACK_STEP of the others at a time into
// two stages, by copies that go on while the stage before is multiplied. All scores stay in registers: with keys as rows of the
// fragments, P and dS are at once the left factors of dv and dk, and with pairs as rows that of dq.
//
//   pairs   S = Q K^T , dP = dO V^T -> dS -> dQ += dS K                                   3 products
//   keys    S = K Q^T , dP = V dO^T -> P, dS -> dV += P dO , dK += dS Q                   4 products
//
// q, k, v, dout, p and ds (without its factor, the scale) are rounded to bf16, sums are f32. 7 products for the 5 of a kernel that
// would add dq atomically. Heads wider than 128 have no registers for dk and dv at once: these are made by two launches.
#include "cuda/attend_back.cuh"

enum { OWN = 64, BACK_WARPS = 4, BACK_TILE_THREADS = 128, NEVER = INT32_MAX };
enum side { DK_AND_DV, ONLY_DK, ONLY_DV };

static size_t back_tile_bytes(int64_t wide) { return (size_t)((2 * OWN + 4 * BACK_STEP) * (wide + TILE_PAD)) * 2; }

// What blocks know of pairs: lse in bits, delta, what they see, and their random numbers.
struct facts { float *lse, *delta; int32_t *lo, *hi; uint2 *random; };

INLINE int64_t row_of(const struct back_job &j, int64_t start, int64_t pair) { return start + pair / j.group; }
INLINE int head_of(const struct back_job &j, int g, int64_t pair) { return g * j.group + (int)(pair % j.group); }

INLINE void facts_load(const struct back_job &j, const struct facts &f, int64_t start, int g, int64_t first, int count) {
    const int m = (int)threadIdx.x;
    if (m >= count) return;
    const int64_t pair = first + m, row = row_of(j, start, pair);
    const bool there = pair < j.pairs;
    const int h = head_of(j, g, pair);
    f.lo[m] = there ? j.a.lo[row] : 0, f.hi[m] = there ? j.a.hi[row] : 0;
    f.lse[m] = there ? 1.44269504088896f * j.a.lse[row * j.a.heads + h] : 0;
    f.delta[m] = there ? j.delta[row * j.a.heads + h] : 0;
    if (j.a.drop.below == 0) return;
    const struct rng_row random = device_dropout_row(j.a.drop, row, h);
    f.random[m] = make_uint2(random.a, random.b);
}

// Rows of heads into shared memory: `count` pairs or keys of the segment from `first` on; behind the end zeros.
template <int WIDE, bool PAIRS>
INLINE void heads_load(const struct back_job &j, const struct tensor &t, int64_t start, int g, int64_t first, int count, uint16_t *to) {
    UNROLL_BY(1) for (int e = (int)threadIdx.x; e < count * (WIDE / 8); e += BACK_TILE_THREADS) {
        const int r = e / (WIDE / 8), c = e % (WIDE / 8) * 8;
        const int64_t at = first + r;
        const bool there = at < (PAIRS ? j.pairs : j.a.segment);
        const int64_t row = !there ? start : PAIRS ? row_of(j, start, at) : start + at;
        const int head = PAIRS ? head_of(j, g, at) : g;
        cp_async16(to + r * (WIDE + TILE_PAD) + c, (const uint16_t *)row_at(t, row) + head * WIDE + c, there);
    }
}

// p and ds / scale of one pair and key, where seen, out of q . k and dout . v.
INLINE void score_turns(const struct back_job &j, const struct facts &f, int m, int64_t key, float c, float factor, float *s, float *dp) {
    if (key < f.lo[m] || key >= f.hi[m]) {
        *s = *dp = 0;
        return;
    }
    const float p = exp2_fast(fmaf(*s, c, -f.lse[m]));
    bool dropped = false;
    if (j.a.drop.below > 0) {
        const struct rng_row random = {f.random[m].x, f.random[m].y};
        dropped = device_rng_row_at(random, (uint32_t)(key - f.lo[m])) < j.a.drop.below;
    }
    *dp = __fmul_rn(p, (dropped ? 0 : __fmul_rn(factor, *dp)) - f.delta[m]);
    *s = dropped ? 0 : p;
}

// S and dP: 16 rows of own, BACK_STEP columns of the others.
template <int WIDE, bool CHANGES>
INLINE void scores_of(const uint16_t *own0, const uint16_t *own1, const uint16_t *met0, const uint16_t *met1, float s[BACK_STEP / 8][4],
                      float dp[BACK_STEP / 8][4]) {
    const int stride = WIDE + TILE_PAD, row = (int)threadIdx.x / WARP * 16;
    UNROLL for (int n = 0; n < BACK_STEP / 8; n++)
        UNROLL for (int i = 0; i < 4; i++) s[n][i] = dp[n][i] = 0;
    UNROLL for (int k = 0; k < WIDE / 16; k++) {
        uint32_t a[4], b[4];
        tile_a(a, own0, stride, row, k * 16);
        UNROLL for (int n = 0; n < BACK_STEP / 16; n++) {
            tile_b(b, met0, stride, n * 16, k * 16);
            mma_bf16(s[2 * n], a, b);
            mma_bf16(s[2 * n + 1], a, b + 2);
        }
        if (!CHANGES) continue;
        tile_a(a, own1, stride, row, k * 16);
        UNROLL for (int n = 0; n < BACK_STEP / 16; n++) {
            tile_b(b, met1, stride, n * 16, k * 16);
            mma_bf16(dp[2 * n], a, b);
            mma_bf16(dp[2 * n + 1], a, b + 2);
        }
    }
}
// to[16][WIDE] += x[16][BACK_STEP] rows[BACK_STEP][WIDE]
template <int WIDE> INLINE void add_product(float to[WIDE / 8][4], const float x[BACK_STEP / 8][4], const uint16_t *rows) {
    UNROLL for (int k = 0; k < BACK_STEP / 16; k++) {
        uint32_t a[4];
        tile_a_of(a, x[2 * k], x[2 * k + 1]);
        UNROLL for (int n = 0; n < WIDE / 16; n++) {
            uint32_t b[4];
            tile_b_turned(b, rows, WIDE + TILE_PAD, k * 16, n * 16);
            mma_bf16(to[2 * n], a, b);
            mma_bf16(to[2 * n + 1], a, b + 2);
        }
    }
}
// The 16 rows of a warp, times `by`, to where they belong.
template <int WIDE, bool PAIRS>
INLINE void heads_write(const struct back_job &j, const struct tensor &to, int64_t start, int g, int64_t first,
                        const float x[WIDE / 8][4], float by) {
    const int lane = (int)threadIdx.x % WARP;
    UNROLL for (int half = 0; half < 2; half++) {
        const int64_t at = first + (int)threadIdx.x / WARP * 16 + lane / 4 + half * 8;
        if (at >= (PAIRS ? j.pairs : j.a.segment)) continue;
        float *row = row_f32(to, PAIRS ? row_of(j, start, at) : start + at) + (PAIRS ? head_of(j, g, at) : g) * j.a.head_size;
        UNROLL for (int n = 0; n < WIDE / 8; n++)
            UNROLL for (int i = 0; i < 2; i++) {
                const int c = n * 8 + lane % 4 * 2 + i;
                if (c < j.a.head_size) row[c] = __fmul_rn(by, x[n][half * 2 + i]);
            }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// dq: the block owns pairs and walks over the steps of keys that any of them sees, counted from the segment's start.

template <int WIDE>
__global__ void __launch_bounds__(BACK_TILE_THREADS, WIDE <= 64 ? 3 : WIDE <= 128 ? 2 : 1) attend_back_pairs_kernel(struct back_job j) {
    const int STAGE = BACK_STEP * (WIDE + TILE_PAD), lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, g = (int)blockIdx.y;
    SHARED_REST(uint16_t, room); // q, dout of OWN pairs; two stages of keys, two of values
    SHARED(float, lse, OWN);
    SHARED(float, delta, OWN);
    SHARED(int32_t, lo, OWN);
    SHARED(int32_t, hi, OWN);
    SHARED(uint2, random, OWN);
    const struct facts f = {lse, delta, lo, hi, random};
    uint16_t *q = room, *dout = q + OWN * (WIDE + TILE_PAD), *keys = dout + OWN * (WIDE + TILE_PAD), *values = keys + 2 * STAGE;
    const int64_t tiles = ceil_div(j.pairs, OWN), start = blockIdx.x / tiles * j.a.segment, first = (tiles - 1 - blockIdx.x % tiles) * OWN;
    facts_load(j, f, start, g, first, OWN);
    heads_load<WIDE, true>(j, j.q, start, g, first, OWN, q);
    heads_load<WIDE, true>(j, j.dout, start, g, first, OWN, dout);
    __syncthreads();
    int least = INT32_MAX, most = 0; // keys that somebody sees, from the start of the segment
    for (int m = lane; m < OWN; m += WARP)
        if (lo[m] < hi[m]) least = min(least, (int)(lo[m] - start)), most = max(most, (int)(hi[m] - start));
    const int end = (-warp_least(-most) + BACK_STEP - 1) / BACK_STEP, begin = min(end, warp_least(least) / BACK_STEP);
    const float c = 1.44269504088896f * j.a.scale, factor = device_dropout_factor(j.a.drop);
    float dq[WIDE / 8][4] = {{0}};
    for (int step = begin - 1, stage = 1; step < end; step++, stage ^= 1) { // the first turn only begins to load
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < end) {
            heads_load<WIDE, false>(j, j.k, start, g, (step + 1) * BACK_STEP, BACK_STEP, keys + (stage ^ 1) * STAGE);
            heads_load<WIDE, false>(j, j.v, start, g, (step + 1) * BACK_STEP, BACK_STEP, values + (stage ^ 1) * STAGE);
        }
        cp_async_commit();
        const int64_t key = start + step * BACK_STEP;
        const int m = warp * 16 + lane % 16; // all lanes together: does the warp see any of these keys?
        if (step < begin || !__any_sync(0xffffffffu, max((int64_t)lo[m], key) < min((int64_t)hi[m], key + BACK_STEP))) continue;
        float s[BACK_STEP / 8][4], ds[BACK_STEP / 8][4];
        scores_of<WIDE, true>(q, dout, keys + stage * STAGE, values + stage * STAGE, s, ds);
        UNROLL for (int n = 0; n < BACK_STEP / 8; n++)
            UNROLL for (int i = 0; i < 4; i++)
                score_turns(j, f, warp * 16 + lane / 4 + i / 2 * 8, key + n * 8 + lane % 4 * 2 + i % 2, c, factor, &s[n][i], &ds[n][i]);
        add_product<WIDE>(dq, ds, keys + stage * STAGE);
    }
    cp_async_wait<0>();
    heads_write<WIDE, true>(j, j.a.dq, start, g, first, dq, j.a.scale);
}

// ---------------------------------------------------------------------------------------------------------------
// dk and dv: the block owns keys and walks over the steps of pairs of which one sees any of them.

// The first such step from `from` on, NEVER where there is none: the lanes of every warp look at 32 at once.
INLINE int64_t step_that_sees(const struct back_job &j, int64_t segment, int64_t key, int64_t from) {
    for (; from < j.steps; from += WARP) {
        const int64_t step = from + (int)threadIdx.x % WARP;
        const int2 seen = step < j.steps ? j.seen[segment * j.steps + step] : make_int2(0, 0);
        const unsigned found = __ballot_sync(0xffffffffu, max((int64_t)seen.x, key) < min((int64_t)seen.y, key + OWN));
        if (found) return from + __ffs((int)found) - 1;
    }
    return NEVER;
}

template <int WIDE, enum side SIDE>
__global__ void __launch_bounds__(BACK_TILE_THREADS, WIDE <= 64 ? 3 : WIDE <= 128 ? 2 : 1) attend_back_keys_kernel(struct back_job j) {
    const int STAGE = BACK_STEP * (WIDE + TILE_PAD), lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, g = (int)blockIdx.y;
    SHARED_REST(uint16_t, room); // keys, values; two stages of q, two of dout
    SHARED(float, lse, 2 * BACK_STEP);
    SHARED(float, delta, 2 * BACK_STEP);
    SHARED(int32_t, lo, 2 * BACK_STEP);
    SHARED(int32_t, hi, 2 * BACK_STEP);
    SHARED(uint2, random, 2 * BACK_STEP);
    uint16_t *keys = room, *values = keys + OWN * (WIDE + TILE_PAD), *q = values + OWN * (WIDE + TILE_PAD), *dout = q + 2 * STAGE;
    const int64_t tiles = ceil_div(j.a.segment, OWN), segment = blockIdx.x / tiles;
    const int64_t start = segment * j.a.segment, first = blockIdx.x % tiles * OWN;
    heads_load<WIDE, false>(j, j.k, start, g, first, OWN, keys);
    heads_load<WIDE, false>(j, j.v, start, g, first, OWN, values);
    const float c = 1.44269504088896f * j.a.scale, factor = device_dropout_factor(j.a.drop);
    float dk[SIDE == ONLY_DV ? 1 : WIDE / 8][4] = {{0}}, dv[SIDE == ONLY_DK ? 1 : WIDE / 8][4] = {{0}};
    int64_t step = -1, next = step_that_sees(j, segment, start + first, 0);
    for (int stage = 1; step != NEVER; stage ^= 1) { // the first turn only begins to load
        const int other = (stage ^ 1) * BACK_STEP;
        cp_async_wait<0>();
        __syncthreads();
        if (next != NEVER) {
            const struct facts to = {lse + other, delta + other, lo + other, hi + other, random + other};
            facts_load(j, to, start, g, next * BACK_STEP, BACK_STEP);
            heads_load<WIDE, true>(j, j.q, start, g, next * BACK_STEP, BACK_STEP, q + (stage ^ 1) * STAGE);
            heads_load<WIDE, true>(j, j.dout, start, g, next * BACK_STEP, BACK_STEP, dout + (stage ^ 1) * STAGE);
        }
        cp_async_commit();
        const int at = stage * BACK_STEP;
        const int64_t key = start + first + warp * 16;
        if (step >= 0 && __any_sync(0xffffffffu, max((int64_t)lo[at + lane], key) < min((int64_t)hi[at + lane], key + 16))) {
            const struct facts f = {lse + at, delta + at, lo + at, hi + at, random + at};
            float s[BACK_STEP / 8][4], ds[BACK_STEP / 8][4];
            scores_of<WIDE, SIDE != ONLY_DV>(keys, values, q + stage * STAGE, dout + stage * STAGE, s, ds);
            UNROLL for (int n = 0; n < BACK_STEP / 8; n++)
                UNROLL for (int i = 0; i < 4; i++)
                    score_turns(j, f, n * 8 + lane % 4 * 2 + i % 2, key + lane / 4 + i / 2 * 8, c, factor, &s[n][i], &ds[n][i]);
            if (SIDE != ONLY_DK) add_product<SIDE == ONLY_DK ? 8 : WIDE>(dv, s, dout + stage * STAGE);
            if (SIDE != ONLY_DV) add_product<SIDE == ONLY_DV ? 8 : WIDE>(dk, ds, q + stage * STAGE);
        }
        step = next;
        if (next != NEVER) next = step_that_sees(j, segment, start + first, next + 1);
    }
    cp_async_wait<0>();
    if (SIDE != ONLY_DV) heads_write<SIDE == ONLY_DV ? 8 : WIDE, false>(j, j.a.dk, start, g, first, dk, j.a.scale);
    if (SIDE != ONLY_DK) heads_write<SIDE == ONLY_DK ? 8 : WIDE, false>(j, j.a.dv, start, g, first, dv, factor);
}
static_assert((int)BACK_STEP == (int)WARP, "a lane looks at a pair");

// ---------------------------------------------------------------------------------------------------------------
// The call.

bool attend_back_bf16_takes(const struct attend_back_args *a) {
    const int wide = tile_width(a->head_size);
    return a->precision == PRECISION_BF16 && cuda_has_bf16() && wide && back_tile_bytes(wide) + 4096 <= cuda_shared_most();
}
size_t attend_back_bf16_bytes(const struct attend_back_args *a) {
    const int wide = tile_width(a->head_size);
    return 2 * rounded_bytes(a->q.rows, a->heads, wide) + 2 * rounded_bytes(a->q.rows, a->kv_heads, wide);
}

template <int WIDE> static void back_bf16_launch(const struct back_job *j) {
    const size_t bytes = back_tile_bytes(WIDE);
    const dim3 keys(j->segments * ceil_div(j->a.segment, OWN), j->a.kv_heads);
    LAUNCH((attend_back_pairs_kernel<WIDE>), dim3(j->segments * ceil_div(j->pairs, OWN), j->a.kv_heads), BACK_TILE_THREADS, bytes, *j);
    LAUNCH((attend_back_keys_kernel<WIDE, (WIDE <= 128 ? DK_AND_DV : ONLY_DK)>), keys, BACK_TILE_THREADS, bytes, *j);
    if (WIDE > 128) LAUNCH((attend_back_keys_kernel<WIDE, (WIDE <= 128 ? DK_AND_DV : ONLY_DV)>), keys, BACK_TILE_THREADS, bytes, *j);
}
void attend_back_bf16(struct back_job *j, void *room) {
    const struct attend_back_args *a = &j->a;
    const int wide = tile_width(a->head_size);
    const size_t many = rounded_bytes(a->q.rows, a->heads, wide), few = rounded_bytes(a->q.rows, a->kv_heads, wide);
    j->q = attend_rounded(a->q, a->heads, wide, room, NULL, NULL, 0);
    j->dout = attend_rounded(a->dout, a->heads, wide, (char *)room + many, NULL, NULL, 0);
    j->k = attend_rounded(a->k, a->kv_heads, wide, (char *)room + 2 * many, NULL, NULL, 0);
    j->v = attend_rounded(a->v, a->kv_heads, wide, (char *)room + 2 * many + few, NULL, NULL, 0);
    if (wide == 32) back_bf16_launch<32>(j);
    else if (wide == 64) back_bf16_launch<64>(j);
    else if (wide == 80) back_bf16_launch<80>(j);
    else if (wide == 96) back_bf16_launch<96>(j);
    else if (wide == 128) back_bf16_launch<128>(j);
    else back_bf16_launch<256>(j);
}
