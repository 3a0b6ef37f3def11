// attend_back.cu: the gradients of attention, recomputed from the log-sum-exp (Dao 2023, FlashAttention-2, section 3.1.2):
//
//   p = e^(scale q . k - lse) ; delta = dout . out ; ds = scale p (f dout . v - delta)
//   dq = sum over keys of ds k ; dk = sum over pairs of ds q ; dv = sum over pairs of f p dout
//
// dq by blocks that own pairs and walk over the keys, dk and dv by blocks that own keys and walk over the pairs of their segment,
// row after row, the heads of a group side by side. So every sum has one owner and one order, and nothing is added atomically; the
// price is that scores are made twice. Tiles lie inside a segment and are counted from its start: what is outside shows in no bit.
//
// This file is f32 and what both precisions share; attend_back_bf16.cu does the same on tensor cores.
#include "cuda/attend_back.cuh"

// ---------------------------------------------------------------------------------------------------------------
// What both precisions need first.

enum { DELTA_THREADS = 256 };

// delta[i,h] = dout[i,h] . out[i,h], a warp each.
__global__ void attend_delta_kernel(struct back_job j) {
    const int lane = (int)threadIdx.x % WARP, D = (int)j.a.head_size;
    const int64_t at = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / WARP;
    if (at >= j.a.q.rows * j.a.heads) return; // the whole warp
    const int64_t i = at / j.a.heads, h = at % j.a.heads;
    const float *dout = row_f32(j.a.dout, i) + h * D, *out = row_f32(j.a.out, i) + h * D;
    float sum = 0;
    for (int c = lane; c < D; c += WARP) sum = fmaf(dout[c], out[c], sum);
    sum = warp_sum(sum);
    if (lane == 0) j.delta[at] = sum;
}

// The rows that somebody sees of every step of BACK_STEP pairs of a segment; nobody sees any: hi <= lo.
__global__ void attend_seen_kernel(struct back_job j) {
    const int64_t at = (int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x;
    if (at >= j.segments * j.steps) return;
    const int64_t first = at % j.steps * BACK_STEP, last = min(first + BACK_STEP, j.pairs) - 1, start = at / j.steps * j.a.segment;
    int2 seen = make_int2(INT32_MAX, 0);
    for (int64_t i = start + first / j.group; i <= start + last / j.group; i++)
        if (j.a.lo[i] < j.a.hi[i]) seen.x = min(seen.x, j.a.lo[i]), seen.y = max(seen.y, j.a.hi[i]);
    j.seen[at] = seen;
}

// ---------------------------------------------------------------------------------------------------------------
// f32. A block of 256 threads owns T pairs, or T keys (KEYS), and takes T of the others at a time: `own` is q and dout, or k and v,
// `met` the other two. Each of a tile's T x T scores is one thread's chain over D; then thread (r, sub) adds to COLUMNS columns of row r,
// 256 / T apart, one after the other of those met.

enum { BACK_THREADS = 256 };

static size_t back_shared_bytes(int T, int64_t D) { return (size_t)(4 * T * (D + 1) + 2 * T * (T + 1)) * sizeof(float); }

// Rows of heads: of pairs [first, first + T) of the segment, or of keys; behind the end zeros.
template <int T, bool KEYS>
INLINE void back_load(const struct back_job &j, const struct tensor &t, int64_t start, int g, int64_t first, float *to) {
    const int D = (int)j.a.head_size;
    for (int e = (int)threadIdx.x; e < T * D; e += BACK_THREADS) {
        const int64_t at = first + e / D, row = KEYS ? at : at / j.group;
        const int head = KEYS ? g : g * j.group + (int)(at % j.group);
        to[e / D * (D + 1) + e % D] = row < j.a.segment ? row_f32(t, start + row)[head * D + e % D] : 0;
    }
}

// p (with f) and ds of the pairs and keys at hand; what is not seen 0. Shared: [own][met].
template <int T, bool KEYS>
INLINE void back_scores(const struct back_job &j, int64_t start, int g, int64_t own_first, int64_t met_first, const float *own0,
                        const float *own1, const float *met0, const float *met1, float *p, float *ds) {
    const int D = (int)j.a.head_size;
    for (int e = (int)threadIdx.x; e < T * T; e += BACK_THREADS) {
        const int r = e / T, m = e % T;
        const int64_t pair = KEYS ? met_first + m : own_first + r, key = start + (KEYS ? own_first + r : met_first + m);
        const int64_t row = start + pair / j.group;
        float weight = 0, slope = 0;
        if (pair < j.pairs && key >= j.a.lo[row] && key < j.a.hi[row]) {
            const int h = g * j.group + (int)(pair % j.group);
            float score = 0, change = 0;
            for (int c = 0; c < D; c++) {
                score = fmaf(own0[r * (D + 1) + c], met0[m * (D + 1) + c], score);
                change = fmaf(own1[r * (D + 1) + c], met1[m * (D + 1) + c], change);
            }
            weight = expf(__fsub_rn(__fmul_rn(j.a.scale, score), j.a.lse[row * j.a.heads + h]));
            const float factor = drop_factor_of(j, row, h, key - j.a.lo[row]);
            slope = j.a.scale * weight * __fsub_rn(__fmul_rn(factor, change), j.delta[row * j.a.heads + h]);
            weight *= factor;
        }
        p[r * (T + 1) + m] = weight, ds[r * (T + 1) + m] = slope;
    }
}

template <int T, int COLUMNS, bool KEYS> __global__ void __launch_bounds__(BACK_THREADS) attend_back_f32_kernel(struct back_job j) {
    SHARED_REST(float, room);
    const int D = (int)j.a.head_size, APART = BACK_THREADS / T, r = (int)threadIdx.x / APART, sub = (int)threadIdx.x % APART;
    const int g = (int)blockIdx.y;
    float *own0 = room, *own1 = own0 + T * (D + 1), *met0 = own1 + T * (D + 1), *met1 = met0 + T * (D + 1);
    float *p = met1 + T * (D + 1), *ds = p + T * (T + 1);
    const int64_t own = KEYS ? j.a.segment : j.pairs, met = KEYS ? j.pairs : j.a.segment, tiles = ceil_div(own, T);
    const int64_t start = blockIdx.x / tiles * j.a.segment, own_first = blockIdx.x % tiles * T;
    back_load<T, KEYS>(j, KEYS ? j.a.k : j.a.q, start, g, own_first, own0);
    back_load<T, KEYS>(j, KEYS ? j.a.v : j.a.dout, start, g, own_first, own1);
    float sum0[COLUMNS] = {0}, sum1[COLUMNS] = {0}; // dk, dv; or dq
    for (int64_t met_first = 0; met_first < met; met_first += T) {
        // Does any pair of these see any of these keys? Every warp finds out by itself.
        const int64_t pair = (KEYS ? met_first : own_first) + (int)threadIdx.x % T, key = start + (KEYS ? own_first : met_first);
        const int64_t row = start + pair / j.group;
        const bool sees = pair < j.pairs && max((int64_t)j.a.lo[row], key) < min((int64_t)j.a.hi[row], key + T);
        if (!__any_sync(0xffffffffu, sees)) continue;
        __syncthreads();
        back_load<T, !KEYS>(j, KEYS ? j.a.q : j.a.k, start, g, met_first, met0);
        back_load<T, !KEYS>(j, KEYS ? j.a.dout : j.a.v, start, g, met_first, met1);
        __syncthreads();
        back_scores<T, KEYS>(j, start, g, own_first, met_first, own0, own1, met0, met1, p, ds);
        __syncthreads();
        for (int m = 0; m < T; m++) {
            const float slope = ds[r * (T + 1) + m], weight = p[r * (T + 1) + m];
            UNROLL for (int i = 0; i < COLUMNS; i++) {
                const int c = sub + i * APART;
                if (c >= D) continue;
                sum0[i] = fmaf(slope, met0[m * (D + 1) + c], sum0[i]);
                if (KEYS) sum1[i] = fmaf(weight, met1[m * (D + 1) + c], sum1[i]);
            }
        }
    }
    const int64_t at = own_first + r, row = start + (KEYS ? at : at / j.group);
    const int head = KEYS ? g : g * j.group + (int)(at % j.group);
    UNROLL for (int i = 0; i < COLUMNS; i++) {
        const int c = sub + i * APART;
        if (at >= own || c >= D) continue;
        row_f32(KEYS ? j.a.dk : j.a.dq, row)[head * D + c] = sum0[i];
        if (KEYS) row_f32(j.a.dv, row)[head * D + c] = sum1[i];
    }
}

template <int T, int COLUMNS> static void back_f32_launch(const struct back_job *j) {
    const size_t bytes = back_shared_bytes(T, j->a.head_size);
    const dim3 pairs(j->segments * ceil_div(j->pairs, T), j->a.kv_heads), keys(j->segments * ceil_div(j->a.segment, T), j->a.kv_heads);
    LAUNCH((attend_back_f32_kernel<T, COLUMNS, false>), pairs, BACK_THREADS, bytes, *j);
    LAUNCH((attend_back_f32_kernel<T, COLUMNS, true>), keys, BACK_THREADS, bytes, *j);
}

static bool tile_fits(int T, int64_t D) { return back_shared_bytes(T, D) <= cuda_shared_most(); }
// The size of a tile shows in no bit: all sums are chains.
static void back_f32(const struct back_job *j) {
    const int64_t D = j->a.head_size;
    if (D <= 64) back_f32_launch<32, 8>(j);
    else if (D <= 128 && tile_fits(32, D)) back_f32_launch<32, 16>(j);
    else if (D <= 256 && tile_fits(16, D)) back_f32_launch<16, 16>(j);
    else if (tile_fits(16, D)) back_f32_launch<16, 32>(j);
    else {
        assert(tile_fits(8, D));
        back_f32_launch<8, 16>(j);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The op.

static void cuda_attend_back(const struct attend_back_args *a) {
    assert(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0 && a->head_size > 0);
    assert(a->head_size <= 512 && a->kv_heads < 65536);
    assert(is_f32(a->dq) && is_f32(a->dout) && is_f32(a->out) && is_f32(a->q) && a->lse);
    assert(same_shape(a->dq, a->q) && same_shape(a->dout, a->q) && same_shape(a->out, a->q));
    assert(is_f32(a->dk) && is_f32(a->dv) && is_f32(a->k) && is_f32(a->v));
    assert(same_shape(a->dk, a->k) && same_shape(a->dv, a->v) && same_shape(a->k, a->v));
    assert(a->q.cols == a->heads * a->head_size && a->k.cols == a->kv_heads * a->head_size);
    assert(a->k.rows == a->q.rows && a->segment > 0 && a->q.rows % a->segment == 0 && a->q.rows < INT32_MAX && a->drop.below < 65536);
    if (a->q.rows == 0) return;
    struct back_job j;
    memset(&j, 0, sizeof j);
    j.a = *a;
    j.group = (int)(a->heads / a->kv_heads);
    j.pairs = a->segment * j.group;
    j.segments = a->q.rows / a->segment;
    j.steps = ceil_div(j.pairs, BACK_STEP);
    const bool bf16 = attend_back_bf16_takes(a);
    const size_t delta = ((size_t)(a->q.rows * a->heads) * sizeof(float) + 255) / 256 * 256;
    const size_t seen = ((size_t)(j.segments * j.steps) * sizeof(int2) + 255) / 256 * 256;
    char *room = (char *)cuda_scratch(SLOT_ATTEND_BACK, delta + seen + (bf16 ? attend_back_bf16_bytes(a) : 0));
    j.delta = (float *)(void *)room;
    j.seen = (int2 *)(void *)(room + delta);
    LAUNCH((attend_delta_kernel), ceil_div(a->q.rows * a->heads * WARP, DELTA_THREADS), DELTA_THREADS, 0, j);
    if (bf16) {
        LAUNCH((attend_seen_kernel), ceil_div(j.segments * j.steps, DELTA_THREADS), DELTA_THREADS, 0, j);
        attend_back_bf16(&j, room + delta + seen);
    } else {
        back_f32(&j);
    }
}

void cuda_fill_attend_back(struct backend *b) { b->attend_back = cuda_attend_back; }
