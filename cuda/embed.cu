// embed.cu: rows of any dtype: loading weights, looking rows up, casts, and the gradient of looking up.
//
// Reading is one kernel for numbers and one for block formats (blocks.cuh), whether a row is looked up by an id (embed) or by its
// own number (cast), with the roundings of dtype_row's to_f32. Writing block formats is quantize.cu.
#include "cuda/blocks.cuh"

enum { THREADS = 256 };

static const struct backend *memory; // the table that this file is part of: alloc, upload

// ---------------------------------------------------------------------------------------------------------------
// Reading. out[i,:] = scale * table[ids[i],:]; ids NULL: i.

struct expand {
    struct tensor out, table;
    const int32_t *ids;
    float scale;
    bool wide_in, wide_out; // 16 bytes at a time
};
static __device__ __forceinline__ int64_t row_of(const struct expand &e, int64_t i) { return e.ids ? e.ids[i] : i; }

// As f16_from_f32 has it: a NaN keeps its upper bits.
static __device__ __forceinline__ uint16_t f16_of(float x) {
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16 & 0x8000) | 0x7e00 | (u >> 13 & 0x3ff));
    return to_f16(x);
}
static __device__ __forceinline__ uint32_t short_of(float x, enum dtype d) { return d == DTYPE_BF16 ? to_bf16(x) : f16_of(x); }

// Columns [c, c + n), n at most 4, of row i of e.out.
static __device__ __forceinline__ void put_four(const struct expand &e, int64_t i, int64_t c, int n, const float x[4]) {
    const enum dtype d = e.out.dtype;
    if (d == DTYPE_F32) {
        float *to = row_f32(e.out, i) + c;
        if (e.wide_out && n == 4) *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
        else
            for (int k = 0; k < 4; k++)
                if (k < n) to[k] = x[k];
        return;
    }
    uint16_t *to = (uint16_t *)row_at(e.out, i) + c;
    if (e.wide_out && n == 4) *(uint2 *)to = make_uint2(short_of(x[0], d) | short_of(x[1], d) << 16, short_of(x[2], d) | short_of(x[3], d) << 16);
    else
        for (int k = 0; k < 4; k++)
            if (k < n) to[k] = (uint16_t)short_of(x[k], d);
}

// A thread for four columns.
template <enum dtype D> __global__ void expand_numbers(struct expand e) {
    const int64_t cols = e.out.cols, fours = ceil_div(cols, 4), at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= e.out.rows * fours) return;
    const int64_t i = at / fours, c = at % fours * 4;
    const int n = (int)(cols - c < 4 ? cols - c : 4);
    const void *row = row_at(e.table, row_of(e, i));
    float x[4];
    if (!e.wide_in || n < 4)
        for (int k = 0; k < 4; k++) x[k] = k < n ? number_at(row, c + k, D) : 0;
    else if (D == DTYPE_F32) {
        const float4 v = *(const float4 *)((const float *)row + c);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        const uint2 v = *(const uint2 *)((const uint16_t *)row + c);
        for (int k = 0; k < 4; k++) {
            const uint16_t h = (uint16_t)half_of(k < 2 ? v.x : v.y, k % 2);
            x[k] = D == DTYPE_BF16 ? from_bf16(h) : from_f16(h);
        }
    }
    for (int k = 0; k < 4; k++) x[k] = e.scale == 1 ? x[k] : __fmul_rn(e.scale, x[k]);
    put_four(e, i, c, n, x);
}

// A thread for a unit's lane: 32 columns, four neighbours at a time.
template <enum dtype D, bool PACKED> __global__ void expand_coded(struct expand e) {
    const int64_t cols = e.out.cols, lanes = (int64_t)coded_units(cols) * UNIT_LANES, at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= e.out.rows * lanes) return;
    const int64_t i = at / lanes;
    const int u = (int)(at % lanes / UNIT_LANES), t = (int)(at % UNIT_LANES);
    struct unit x;
    unit_read<D, PACKED>(&x, row_at(e.table, row_of(e, i)), cols, u, t);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int64_t first = (int64_t)u * UNIT + c * CHUNK;
        if (first >= cols) return;
        uint32_t words[2];
        unit_words<D>(&x, c, words);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float dl, ml, numbers[4];
            unit_factor<D>(&x, u, coded_group(D) == 16 ? 2 * c + h : c, &dl, &ml);
            word_numbers<D>(words[h], dl, ml, numbers);
            for (int k = 0; k < 4; k++) numbers[k] = e.scale == 1 ? numbers[k] : __fmul_rn(e.scale, numbers[k]);
            put_four(e, i, first + 16 * h + 4 * t, 4, numbers);
        }
    }
}

static void expand(const struct expand *e) {
    const bool packed = e->table.layout == LAYOUT_DEVICE;
    const int64_t each = is_coded(e->table.dtype) ? (int64_t)coded_units(e->out.cols) * UNIT_LANES : ceil_div(e->out.cols, 4);
    const int64_t blocks = ceil_div(e->out.rows * each, THREADS);
    if (blocks == 0) return;
    switch (e->table.dtype) {
    case DTYPE_F32: LAUNCH((expand_numbers<DTYPE_F32>), blocks, THREADS, 0, *e); break;
    case DTYPE_F16: LAUNCH((expand_numbers<DTYPE_F16>), blocks, THREADS, 0, *e); break;
    case DTYPE_BF16: LAUNCH((expand_numbers<DTYPE_BF16>), blocks, THREADS, 0, *e); break;
#define EXPAND_CASE(upper, lower)                                                                  \
    case DTYPE_##upper:                                                                            \
        if (packed) LAUNCH((expand_coded<DTYPE_##upper, true>), blocks, THREADS, 0, *e);           \
        else LAUNCH((expand_coded<DTYPE_##upper, false>), blocks, THREADS, 0, *e);                 \
        break;
    CODED_DTYPES(EXPAND_CASE)
    default: assert(!"a dtype without numbers");
    }
}

void cuda_expand_rows(const struct tensor *to, const struct tensor *from) {
    const struct expand e = {*to, *from, NULL, 1, by_sixteen(*from), by_sixteen(*to)};
    expand(&e);
}

static bool is_table(const struct tensor &t) {
    return is_rows(t) || (t.layout == LAYOUT_DEVICE && t.mats == 1 && (is_coded(t.dtype) || t.dtype != DTYPE_I32) && t.data);
}

static void cuda_embed(const struct embed_args *a) {
    assert(is_f32(a->out) && is_table(a->table) && a->table.dtype != DTYPE_I32 && a->out.cols == a->table.cols);
    const struct expand e = {a->out, a->table, a->ids, one_if_zero(a->scale), by_sixteen(a->table), by_sixteen(a->out)};
    expand(&e);
}

// ---------------------------------------------------------------------------------------------------------------
// Casts. Block formats are made of floats, so of anything else by way of as many rows of f32 as there is room for.

enum { CAST_ROOM = 64 << 20 };

static void cuda_cast(const struct cast_args *a) {
    assert(is_rows(a->dst) && is_rows(a->src) && same_shape(a->dst, a->src));
    assert(dtype_row(a->src.dtype)->to_f32 && dtype_row(a->dst.dtype)->from_f32);
    if (a->src.rows == 0 || a->src.cols == 0) return;
    if (!is_coded(a->dst.dtype)) {
        cuda_expand_rows(&a->dst, &a->src);
        return;
    }
    if (a->src.dtype == DTYPE_F32) {
        cuda_quantize(&a->dst, &a->src);
        return;
    }
    const int64_t most = max((int64_t)1, (int64_t)CAST_ROOM / (4 * a->src.cols)), each = min(most, a->src.rows);
    float *room = (float *)cuda_scratch(SLOT_BLOCKS, (size_t)(each * a->src.cols) * sizeof(float));
    for (int64_t at = 0; at < a->src.rows; at += each) {
        const int64_t n = min(each, a->src.rows - at);
        const struct tensor from = tensor_rows(a->src, at, n), to = tensor_rows(a->dst, at, n), some = tensor_f32(room, n, a->src.cols);
        cuda_expand_rows(&some, &from);
        cuda_quantize(&to, &some);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// dtable[ids[i],:] += scale * dout[i,:], in order of i, without atomics: of the rows with one id the first adds them all, one
// after the other, to what stands in the table. A block for each row and COLUMNS columns looks for its id before it, and
// if it is the first, behind it, 1024 ids a turn. The ids stay in L1, so 8192 of them, each looked at by each, take some
// ten microseconds; the floor is dout once and the rows of dtable that change twice.

enum { EACH = 4, COLUMNS = EACH * THREADS, IDS = EACH * THREADS, WARPS = THREADS / (int)WARP };

__global__ void embed_back_kernel(struct embed_back_args a) {
    SHARED(uint32_t, found, WARP); // bit l of word w: id number 32 w + l of this turn is ours
    SHARED(uint32_t, seen, WARPS);
    const int tid = (int)threadIdx.x, lane = tid % WARP, warp = tid / WARP;
    const int64_t i = blockIdx.x, n = a.dout.rows, cols = a.dout.cols;
    const int32_t id = a.ids[i];
    bool before = false;
    for (int64_t k = tid; k < i; k += THREADS) before |= a.ids[k] == id;
    before = __any_sync(0xffffffffu, before);
    if (lane == 0) seen[warp] = before;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        if (seen[w]) return; // all of the block alike
    const int64_t first = (int64_t)blockIdx.y * COLUMNS + tid;
    float *to = row_f32(a.dtable, id), sum[EACH];
    const float scale = one_if_zero(a.scale);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int64_t c = first + k * THREADS;
        if (c < cols) sum[k] = to[c] + __fmul_rn(scale, row_f32(a.dout, i)[c]);
    }
    for (int64_t base = i + 1; base < n; base += IDS) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const int64_t j = base + k * THREADS + tid;
            const uint32_t votes = __ballot_sync(0xffffffffu, j < n && a.ids[j < n ? j : i] == id);
            if (lane == 0) found[k * WARPS + warp] = votes;
        }
        __syncthreads();
        uint32_t words = __ballot_sync(0xffffffffu, found[lane] != 0);
        while (words) {
            const int word = __ffs((int)words) - 1;
            words &= words - 1;
            for (uint32_t votes = found[word]; votes; votes &= votes - 1) {
                const float *from = row_f32(a.dout, base + word * WARP + __ffs((int)votes) - 1);
#pragma unroll
                for (int k = 0; k < EACH; k++) {
                    const int64_t c = first + k * THREADS;
                    if (c < cols) sum[k] = sum[k] + __fmul_rn(scale, from[c]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int64_t c = first + k * THREADS;
        if (c < cols) to[c] = sum[k];
    }
}

static void cuda_embed_back(const struct embed_back_args *a) {
    assert(is_f32(a->dtable) && is_f32(a->dout) && a->dtable.cols == a->dout.cols);
    static_assert((int)IDS == (int)WARP * WARP, "a word of votes for every lane");
    if (a->dout.rows && a->dout.cols) LAUNCH((embed_back_kernel), dim3(a->dout.rows, ceil_div(a->dout.cols, COLUMNS)), THREADS, 0, *a);
}

// ---------------------------------------------------------------------------------------------------------------
// Weights. Numbers lie as in the file; rows of block formats are packed, some MiB at a time, out of what was sent as it is.

template <enum dtype D> __global__ void pack_kernel(struct tensor from, unsigned char *to) {
    const int units = coded_units(from.cols);
    const int64_t lanes = (int64_t)units * UNIT_LANES, at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / lanes;
    if (i >= from.rows) return;
    const int u = (int)(at % lanes / UNIT_LANES), t = (int)(at % UNIT_LANES);
    struct unit x;
    unit_gather<D>(&x, row_at(from, i), from.cols, u, t);
    unit_store<D>(&x, to + (size_t)i * coded_row_bytes(D, from.cols), units, u, t);
}

void cuda_pack_rows(const struct tensor *from, void *to) {
    const int64_t blocks = ceil_div(from->rows * coded_units(from->cols) * UNIT_LANES, THREADS);
    if (blocks == 0) return;
    switch (from->dtype) {
#define PACK_CASE(upper, lower) \
    case DTYPE_##upper: LAUNCH((pack_kernel<DTYPE_##upper>), blocks, THREADS, 0, *from, (unsigned char *)to); break;
    CODED_DTYPES(PACK_CASE)
    default: assert(!"no block format");
    }
}

enum { LOAD_ROOM = 16 << 20 };

static bool cuda_weight_load(struct tensor *device, const struct tensor *host, bool *owned, struct err *err) {
    assert(host->layout == LAYOUT_ROWS && host->data);
    size_t used;
    if (host->dtype >= DTYPE_COUNT || !dtype_row(host->dtype)->to_f32 || host->mats != 1 || host->rows < 1 || host->cols < 1 ||
        !dtype_row_bytes(host->dtype, host->cols, &used) || host->row_bytes < used)
        return err_set(err, "cuda: expected one matrix of whole rows of numbers or a block format, found %lld of %lld x %lld %s in rows of %zu bytes",
                       (long long)host->mats, (long long)host->rows, (long long)host->cols,
                       host->dtype < DTYPE_COUNT ? dtype_row(host->dtype)->name : "of an unknown type", host->row_bytes);
    const bool coded = is_coded(host->dtype);
    *device = *host;
    device->row_bytes = coded ? coded_row_bytes(host->dtype, host->cols) : used;
    device->data = cuda_weight_alloc((size_t)host->rows * device->row_bytes, err);
    *owned = true;
    if (!device->data) return false;
    if (!coded && host->row_bytes == used) memory->upload(device->data, host->data, (size_t)host->rows * used);
    else if (!coded)
        for (int64_t i = 0; i < host->rows; i++) memory->upload(row_at(*device, i), row_at(*host, i), used);
    if (!coded) return true;
    const int64_t each = min(host->rows, max((int64_t)1, (int64_t)(LOAD_ROOM / host->row_bytes)));
    struct tensor some = *host;
    some.data = cuda_scratch(SLOT_BLOCKS, (size_t)each * host->row_bytes);
    for (int64_t at = 0; at < host->rows; at += each) {
        some.rows = min(each, host->rows - at);
        memory->upload(some.data, row_at(*host, at), (size_t)(some.rows - 1) * host->row_bytes + used);
        cuda_pack_rows(&some, row_at(*device, at));
    }
    device->layout = LAYOUT_DEVICE;
    return true;
}

void cuda_fill_embed(struct backend *b) {
    memory = b;
    b->weight_load = cuda_weight_load;
    b->embed = cuda_embed;
    b->embed_back = cuda_embed_back;
    b->cast = cuda_cast;
}
