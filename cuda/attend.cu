// attend.cu: attention in f32, of any head size and dtypes, and what joins the parts of both precisions.
//
// A part is 256 keys, counted from a row's first key among ROWS and from row 0 of a cache (backend.h). A block takes up to P pairs
// (attend.cuh) of one kv head and makes of each part, by itself,
//
//   s = scale q . k ; m = max s ; p = e^(s - m) ; l = sum p ; o = sum p v
//
// and (m, l, o) are added to what came before: by the block itself, part after part, or where blocks would be few (decoding), by
// attend_join_kernel behind blocks of a few parts each. Both add with attend_join, so that the choice shows in no bit. Nor do other
// rows of a tile: a pair that does not see a key has p = 0 for it, and adding 0 changes nothing. (A NaN among the values of a key
// that a neighbour in the tile sees does show, as on the processor: 0 NaN is NaN.)
//
// Keys come straight from memory into registers, 16 bytes a lane, LANES lanes side by side for a row, so that nothing but what
// is read again (queries, p) goes through shared memory. A block of 256 threads reads 128 KiB of a cache of f16 with D = 128,
// one pass over keys, one over values; the floor of decoding is these bytes. 8 pairs take 8 fused multiply-adds for each number
// read, 4.8 TB/s of f16 19 of the 33 a second (10^12) that an H200 has. More pairs are tiles of their own, which find the keys in L2.
#include "cuda/attend_tiles.cuh"

enum { F32_WARPS = 8, F32_THREADS = 256, KEYS_OF_WARP = 32 };
static_assert((int)F32_THREADS == (int)F32_WARPS * (int)WARP && (int)KEYS_OF_WARP * (int)F32_WARPS == (int)PART, "the warps share a part");

// ---------------------------------------------------------------------------------------------------------------
// Sums over lanes that differ in the bits from FAR down to LEAST, of N numbers each: at every step a lane gives away the half that it
// does not keep. Of the sums the lane has those from the one returned on: N / (2 FAR / LEAST), or one, which lanes that differ in the
// lower bits have in common. The order of a sum does not depend on N.

template <int N, int FAR, int LEAST> INLINE int lanes_sums(float *v) {
    if (FAR < LEAST) return 0;
    if (N == 1) {
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], FAR);
        return lanes_sums<1, FAR / 2, LEAST>(v);
    }
    const int half = N / 2;
    const bool upper = (int)threadIdx.x & FAR;
    UNROLL for (int i = 0; i < half; i++) {
        const float keep = upper ? v[i + half] : v[i], give = upper ? v[i] : v[i + half];
        v[i] = keep + __shfl_xor_sync(0xffffffffu, give, FAR);
    }
    return (upper ? half : 0) + lanes_sums<(N > 1 ? N / 2 : 1), FAR / 2, LEAST>(v);
}
// Keys that a lane asks for before it uses the first: as many as there are registers for.
template <int P, int KIND>
INLINE constexpr int keys_at_once(void) { return (P == 1 ? 8 : 4) / (KIND == KIND_F16 || KIND == KIND_BF16 ? 1 : 2); }

// What a tile knows of the part at hand. Rooms: q [P][wide], where the first halves of all eights lie before the second halves, so
// that a warp reads them without conflicts; s [P][PART]; sums [F32_WARPS][P][wide].
struct part_at {
    int64_t from;   // row of its first key
    int begin, end; // the keys of it that anybody here sees
    int D, wide;
    float *q; // and behind it s and sums
};
template <int P> INLINE float *scores_room(const struct part_at &t) { return t.q + P * t.wide; }
template <int P> INLINE float *sums_room(const struct part_at &t) { return t.q + P * (t.wide + PART); }

// s = q . k of the warp's own keys: each lane a chain over its columns, then lanes_sums.
template <int P, int LANES, int KIND> INLINE void part_scores(const struct part_at &t, const struct tensor &k, int g) {
    constexpr int AT_ONCE = keys_at_once<P, KIND>(), TOGETHER = WARP / LANES, N = P * AT_ONCE;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, sub = lane / LANES;
    const size_t head = head_bytes(k.dtype, (int64_t)g * t.D);
    for (int key = warp * KEYS_OF_WARP; key < (warp + 1) * KEYS_OF_WARP; key += AT_ONCE * TOGETHER) {
        if (key + AT_ONCE * TOGETHER <= t.begin || key >= t.end) continue;
        float sum[N] = {0};
        for (int c = lane % LANES * 8; c < t.D; c += LANES * 8) {
            struct eight r[AT_ONCE];
            float x[AT_ONCE][8];
            UNROLL for (int u = 0; u < AT_ONCE; u++) {
                const int at = min(max(key + u * TOGETHER + sub, t.begin), t.end - 1);
                r[u] = load_eight<KIND>((const char *)row_at(k, t.from + at) + head, k.dtype, c, t.D);
            }
            UNROLL for (int u = 0; u < AT_ONCE; u++) eight_floats<KIND>(r[u], x[u]);
            UNROLL for (int p = 0; p < P; p++) {
                const float *q = t.q + p * t.wide + c / 2;
                const float4 a = *(const float4 *)(const void *)q, b = *(const float4 *)(const void *)(q + t.wide / 2);
                UNROLL for (int u = 0; u < AT_ONCE; u++) {
                    float *to = &sum[p * AT_ONCE + u];
                    *to = fmaf(a.x, x[u][0], *to), *to = fmaf(a.y, x[u][1], *to), *to = fmaf(a.z, x[u][2], *to), *to = fmaf(a.w, x[u][3], *to);
                    *to = fmaf(b.x, x[u][4], *to), *to = fmaf(b.y, x[u][5], *to), *to = fmaf(b.z, x[u][6], *to), *to = fmaf(b.w, x[u][7], *to);
                }
            }
        }
        const int first = lanes_sums<N, LANES / 2, 1>(sum);
        const bool mine = lane % (LANES / min(N, LANES)) == 0;
        UNROLL for (int i = 0; i < max(1, N / LANES); i++)
            if (mine) scores_room<P>(t)[(first + i) / AT_ONCE * PART + key + (first + i) % AT_ONCE * TOGETHER + sub] = sum[i];
    }
}

// sums[warp] = sum p v over the warp's own keys, in order within `sub`, then by lanes_sums.
template <int P, int LANES, int KIND> INLINE void part_values(const struct part_at &t, const struct tensor &v, int g) {
    constexpr int AT_ONCE = keys_at_once<P, KIND>(), TOGETHER = WARP / LANES;
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, sub = lane / LANES;
    const size_t head = head_bytes(v.dtype, (int64_t)g * t.D);
    for (int first = 0; first < t.D; first += LANES * 8) {
        const int c = first + lane % LANES * 8;
        float o[P][8] = {{0}};
        for (int key = warp * KEYS_OF_WARP; key < (warp + 1) * KEYS_OF_WARP; key += AT_ONCE * TOGETHER) {
            if (key + AT_ONCE * TOGETHER <= t.begin || key >= t.end) continue;
            struct eight r[AT_ONCE];
            UNROLL for (int u = 0; u < AT_ONCE; u++) {
                const int at = min(max(key + u * TOGETHER + sub, t.begin), t.end - 1); // p is 0 where this is another key
                r[u] = load_eight<KIND>((const char *)row_at(v, t.from + at) + head, v.dtype, c < t.D ? c : 0, t.D);
            }
            UNROLL for (int u = 0; u < AT_ONCE; u++) {
                float x[8];
                eight_floats<KIND>(r[u], x);
                UNROLL for (int p = 0; p < P; p++) {
                    const float weight = scores_room<P>(t)[p * PART + key + u * TOGETHER + sub];
                    UNROLL for (int i = 0; i < 8; i++) o[p][i] = fmaf(weight, x[i], o[p][i]);
                }
            }
        }
        constexpr int EACH = P * 8 / TOGETHER;
        const int from = lanes_sums<P * 8, WARP / 2, LANES>(&o[0][0]);
        if (c >= t.D) continue;
        UNROLL for (int i = 0; i < EACH; i++) {
            const int at = from + i;
            sums_room<P>(t)[(warp * P + at / 8) * t.wide + c + at % 8] = o[i / 8][i % 8];
        }
    }
}

// The softmax of one pair's part by one warp: s becomes p. Returns m and l.
INLINE float2 part_softmax(const struct attend_job &j, float *s, int first, int limit, int64_t row, int head, int64_t drop_from) {
    const int EACH = (int)PART / WARP;
    const struct attend_args &a = j.a;
    const int lane = (int)threadIdx.x % WARP;
    float z[EACH], most = -INFINITY, sum = 0;
    UNROLL for (int i = 0; i < EACH; i++) {
        const int key = i * WARP + lane;
        z[i] = -INFINITY;
        if (key >= first && key < limit) {
            z[i] = __fmul_rn(a.scale, s[key]);
            if (a.softcap > 0) z[i] = __fmul_rn(a.softcap, tanhf(__fdiv_rn(z[i], a.softcap)));
        }
        most = fmaxf(most, z[i]);
    }
    most = warp_max(most);
    struct rng_row random = {0, 0};
    if (a.drop.below > 0) random = device_dropout_row(a.drop, row, head);
    UNROLL for (int i = 0; i < EACH; i++) {
        const int key = i * WARP + lane;
        const bool seen = key >= first && key < limit;
        const float e = seen ? expf(z[i] - most) : 0;
        const bool dropped = seen && a.drop.below > 0 && device_rng_row_at(random, (uint32_t)(drop_from + key)) < a.drop.below;
        sum += e;
        s[key] = dropped ? 0 : e;
    }
    return make_float2(most, warp_sum(sum));
}

#define BY_KIND(kind, function, ...)                                 \
    if ((kind) == KIND_F16) function<P, LANES, KIND_F16>(__VA_ARGS__);        \
    else if ((kind) == KIND_BF16) function<P, LANES, KIND_BF16>(__VA_ARGS__); \
    else if ((kind) == KIND_F32) function<P, LANES, KIND_F32>(__VA_ARGS__);   \
    else if ((kind) == KIND_Q8_0) function<P, LANES, KIND_Q8_0>(__VA_ARGS__); \
    else if ((kind) == KIND_Q4_0) function<P, LANES, KIND_Q4_0>(__VA_ARGS__); \
    else function<P, LANES, KIND_LOOSE>(__VA_ARGS__)

static size_t f32_shared_bytes(int P, int D) {
    const int wide = (int)ceil_div(D, 8) * 8;
    return (size_t)(P * (2 * wide + PART) + F32_WARPS * P * wide) * sizeof(float);
}

template <int P, int LANES> __global__ void __launch_bounds__(F32_THREADS, 2) attend_f32_kernel(struct attend_job j) {
    SHARED_REST(float, room);
    SHARED(int32_t, lo, P);
    SHARED(int32_t, hi, P);
    SHARED(struct joined, state, P);
    SHARED(float2, part_ml, P);
    const int D = (int)j.a.head_size, wide = (D + 7) / 8 * 8, thread = (int)threadIdx.x, warp = thread / WARP, g = (int)blockIdx.y;
    const int64_t pair = tile_of(j) * P; // the first
    struct part_at t = {0, 0, 0, D, wide, room};
    float *s = scores_room<P>(t), *sums = sums_room<P>(t), *total = sums + F32_WARPS * P * wide;
    for (int e = thread; e < P * wide; e += F32_THREADS) {
        const int p = e / wide, c = e % wide;
        const bool there = pair + p < j.pairs && c < D;
        const float *q = there ? row_f32(j.a.q, (pair + p) / j.group) + head_of(j, g, pair + p) * D : NULL;
        t.q[p * wide + c % 8 / 4 * (wide / 2) + c / 8 * 4 + c % 4] = there ? q[c] : 0;
        total[e] = 0;
    }
    tile_ranges(j, pair, P, lo, hi);
    if (thread < P) state[thread] = joined_nothing();
    __syncthreads();
    struct walk w = {-1, 0, 0};
    while (walk_next<false>(&w, lo, hi, P, j.cache))
        for (int part = walk_part(j, w); part < walk_parts(w); part += parts_apart(j)) {
            t.from = w.origin + (int64_t)part * PART;
            tile_sees<false>(w, lo, hi, P, j.cache, t.from, &t.begin, &t.end);
            if (t.begin >= t.end) continue;
            BY_KIND(j.k_kind, part_scores, t, j.a.k, g);
            __syncthreads();
            if (warp < P) {
                const int64_t row = (pair + warp) / j.group;
                const bool here = j.cache || lo[warp] == w.origin;
                const int first = here ? (int)max((int64_t)0, lo[warp] - t.from) : 0;
                const int limit = here ? (int)min((int64_t)PART, hi[warp] - t.from) : 0;
                const float2 ml = part_softmax(j, s + warp * PART, first, limit, row, head_of(j, g, pair + warp), (int64_t)part * PART);
                if (thread % WARP == 0) part_ml[warp] = ml, joined_scalars<false>(&state[warp], ml, first < limit);
            }
            __syncthreads();
            BY_KIND(j.v_kind, part_values, t, j.a.v, g);
            __syncthreads();
            for (int e = thread; e < P * D; e += F32_THREADS) {
                const int p = e / D, c = e % D;
                if (!state[p].saw) continue;
                float o = sums[p * wide + c];
                for (int i = 1; i < F32_WARPS; i++) o = __fadd_rn(o, sums[(i * P + p) * wide + c]);
                if (j.split) part_write(j, part, (pair + p) / j.group, head_of(j, g, pair + p), c, o, part_ml[p]);
                else total[p * wide + c] = joined_number(state[p], total[p * wide + c], o);
            }
            __syncthreads();
        }
    if (j.split) return;
    for (int e = thread; e < P * D; e += F32_THREADS) {
        const int p = e / D, c = e % D;
        if (pair + p < j.pairs) attend_write<false>(j, (pair + p) / j.group, head_of(j, g, pair + p), c, state[p], total[p * wide + c]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Parts of a row and head joined, a thread for each column. What e^ takes is made of maxima of all parts before, which need no
// order, so that threads make it side by side.

enum { JOIN_THREADS = 256 };

template <bool BASE2> __global__ void __launch_bounds__(JOIN_THREADS) attend_join_kernel(struct attend_job j) {
    SHARED(float, tops, WARP);
    SHARED(float4, scalars, JOIN_THREADS); // keep, add, l
    const int thread = (int)threadIdx.x, lane = thread % WARP, warp = thread / WARP, threads = (int)blockDim.x, D = (int)j.a.head_size;
    const int64_t i = blockIdx.x / j.a.heads;
    const int head = (int)(blockIdx.x % j.a.heads);
    const int32_t lo = j.a.lo[i], hi = j.a.hi[i];
    const int begin = j.cache ? lo / PART : 0, end = lo < hi ? (int)ceil_div(hi - (j.cache ? 0 : lo), PART) : begin;
    for (int first = 0; first < D; first += threads) {
        const int c = first + thread;
        struct joined state = joined_nothing();
        float total = 0;
        for (int from = begin; from < end; from += threads) {
            const bool there = from + thread < end;
            const float2 ml = there ? part_ml_at(j, from + thread, i, head) : make_float2(-INFINITY, 0);
            float most = ml.x; // of the parts up to here
            for (int far = 1; far < WARP; far *= 2) {
                const float other = __shfl_up_sync(0xffffffffu, most, far);
                if (lane >= far) most = fmaxf(most, other);
            }
            __syncthreads();
            if (lane == WARP - 1) tops[warp] = most;
            __syncthreads();
            float before = state.m;
            for (int w = 0; w < warp; w++) before = fmaxf(before, tops[w]);
            const float left = __shfl_up_sync(0xffffffffu, most, 1);
            struct joined mine = {lane ? fmaxf(before, left) : before, 0, 0, 0, 0};
            joined_scalars<BASE2>(&mine, ml, 1);
            scalars[thread] = make_float4(mine.keep, mine.add, ml.y, mine.m);
            __syncthreads();
            const int count = min(threads, end - from);
            UNROLL_BY(4) for (int t = 0; t < count; t++) {
                const float4 by = scalars[t];
                const float o = c < D ? part_number_at(j, from + t, i, head, c) : 0;
                state.keep = by.x, state.add = by.y, state.m = by.w, state.saw = 1;
                state.l = joined_number(state, state.l, by.z);
                total = joined_number(state, total, o);
            }
        }
        if (c < D) attend_write<BASE2>(j, i, head, c, state, total);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The op.

// Blocks of some parts each where whole rows would be too few for the machine, as long as what they leave behind is not large. How
// many keys there are only the device knows: blocks without any are quick, but not free.
enum { BLOCKS_EACH = 4 }; // of a multiprocessor
static bool attend_splits(const struct attend_job *j, int64_t blocks) {
    const int64_t bytes = j->parts_most * j->a.q.rows * j->a.heads * (j->a.head_size + 2) * (int64_t)sizeof(float);
    return j->parts_most > 1 && blocks < BLOCKS_EACH / 2 * cuda_processors() && bytes <= (int64_t)256 << 20;
}
void attend_launches(struct attend_job *j, int64_t pairs_of_tile, bool base2, void (*start)(const struct attend_job *j, dim3 grid),
                     size_t other_bytes) {
    const int64_t tiles = ceil_div(j->pairs, pairs_of_tile), blocks = tiles * j->a.kv_heads;
    const int64_t numbers = j->parts_most * j->a.q.rows * j->a.heads;
    j->split = attend_splits(j, blocks);
    const size_t o_bytes = j->split ? (size_t)(numbers * j->a.head_size) * sizeof(float) : 0;
    const size_t ml_bytes = j->split ? (size_t)numbers * sizeof(float2) : 0;
    other_bytes = (other_bytes + 255) / 256 * 256;
    char *room = (char *)cuda_scratch(SLOT_ATTEND, other_bytes + ml_bytes + o_bytes + 1);
    j->other = room;
    j->part_ml = (float2 *)(void *)(room + other_bytes);
    j->part_o = (float *)(void *)(room + other_bytes + ml_bytes);
    start(j, dim3(tiles, j->a.kv_heads, j->split ? min(ceil_div(BLOCKS_EACH * cuda_processors(), blocks), j->parts_most) : 1));
    if (!j->split) return;
    const int64_t threads = min(ceil_div(j->a.head_size, WARP) * WARP, (int64_t)JOIN_THREADS);
    if (base2) LAUNCH((attend_join_kernel<true>), j->a.q.rows * j->a.heads, threads, 0, *j);
    else LAUNCH((attend_join_kernel<false>), j->a.q.rows * j->a.heads, threads, 0, *j);
}

static int f32_pairs(const struct attend_job *j) {
    const int64_t D = j->a.head_size;
    if (j->pairs == 1 || f32_shared_bytes(4, (int)D) + 1024 > cuda_shared_most()) return 1;
    return j->pairs <= 4 || D > 128 ? 4 : 8;
}
static void f32_start(const struct attend_job *j, dim3 grid) {
    const int P = f32_pairs(j), D = (int)j->a.head_size;
    const size_t bytes = f32_shared_bytes(P, D);
#define START(p, lanes) LAUNCH((attend_f32_kernel<p, lanes>), grid, F32_THREADS, bytes, *j)
    if (D <= 64) {
        if (P == 1) START(1, 8);
        else if (P == 4) START(4, 8);
        else START(8, 8);
    } else if (D <= 128) {
        if (P == 1) START(1, 16);
        else if (P == 4) START(4, 16);
        else START(8, 16);
    } else {
        if (P == 1) START(1, 32);
        else START(4, 32);
    }
#undef START
}

static void cuda_attend(const struct attend_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(is_f32(a->out) && is_f32(a->q) && same_shape(a->out, a->q));
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(is_cache(a->k, a->head_size) && is_cache(a->v, a->head_size) && same_shape(a->k, a->v) && a->k.layout == a->v.layout);
    assert(a->drop.below < 65536 && (a->drop.below == 0 || a->k.layout == LAYOUT_ROWS));
    assert(a->kv_heads < 65536 && a->k.rows < INT32_MAX - 2 * PART);
    if (a->q.rows == 0) return;
    struct attend_job j;
    memset(&j, 0, sizeof j);
    j.a = *a;
    j.group = (int)(a->heads / a->kv_heads);
    j.pairs = a->q.rows * j.group;
    j.cache = a->k.layout == LAYOUT_DEVICE;
    j.k_kind = kind_of(a->k, a->head_size), j.v_kind = kind_of(a->v, a->head_size);
    j.parts_most = ceil_div(a->k.rows, PART);
    if (attend_bf16_takes(a)) attend_bf16(&j);
    else attend_launches(&j, f32_pairs(&j), false, f32_start, 0);
}

void cuda_fill_attend(struct backend *b) {
    b->attend = cuda_attend;
    cuda_fill_store_rows(b);
    cuda_fill_attend_back(b);
}
