// store_rows.cu: rows written into a cache, and attention sinks.
//
// A cache lies on the GPU row after row, whatever its layout is called: a decoding step reads a head's keys as rows of some 256
// bytes, which is what the memory likes anyway. The bits are those of dtype_row(...)->from_f32 (core/dtype.c).
#include "cuda/attend.cuh"

enum { THREADS = 128 };

// As f16_from_f32: a NaN keeps its sign and what fits of its payload, where the instruction makes all NaNs one.
INLINE uint16_t f16_bits(float x) {
    const uint32_t u = __float_as_uint(x), magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)((u >> 16 & 0x8000u) | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    return to_f16(x);
}

// A thread for EACH numbers of a row. What a step or a prompt stores is small beside all else that it moves.
enum { EACH = 8 };
__global__ void store_numbers_kernel(struct store_rows_args a) {
    const int64_t pieces = ceil_div(a.src.cols, EACH), at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= a.src.rows * pieces) return;
    const int64_t i = at / pieces, first = at % pieces * EACH, end = min(first + EACH, a.src.cols);
    const float *from = row_f32(a.src, i);
    void *to = row_at(a.dst, a.rows[i]);
    for (int64_t c = first; c < end; c++)
        if (a.dst.dtype == DTYPE_F32) ((float *)to)[c] = from[c];
        else ((uint16_t *)to)[c] = a.dst.dtype == DTYPE_BF16 ? to_bf16(from[c]) : f16_bits(from[c]);
}

// 1 / d where that is a number: a scale so small is 0 in f16 anyway.
INLINE float inverse_of(float d) {
    const float inverse = __fdiv_rn(1, d);
    return isfinite(inverse) ? inverse : 0;
}
INLINE int q8_code(float x) { return x == x ? (int)roundf(x) : 0; }
INLINE int q4_code(float x) {
    if (!(x > -8.5f)) return x == x ? 0 : 8; // NaN becomes 0, which is code 8
    const int code = (int)__fadd_rn(x, 8.5f);
    return code > 15 ? 15 : code;
}

INLINE void store_q8_0(const float *x, struct block_q8_0 *to) {
    float most = 0;
    for (int j = 0; j < QK; j++) most = fmaxf(most, fabsf(x[j]));
    const float d = __fdiv_rn(most, 127), inverse = inverse_of(d);
    to->d = f16_bits(d);
    for (int j = 0; j < QK; j++) to->q[j] = (int8_t)q8_code(__fmul_rn(x[j], inverse));
}
INLINE void store_q4_0(const float *x, struct block_q4_0 *to) {
    float most = 0;
    for (int j = 0; j < QK; j++)
        if (fabsf(x[j]) > fabsf(most)) most = x[j];
    const float d = __fdiv_rn(most, -8), inverse = inverse_of(d);
    to->d = f16_bits(d);
    for (int j = 0; j < QK / 2; j++)
        to->q[j] = (uint8_t)(q4_code(__fmul_rn(x[j], inverse)) | q4_code(__fmul_rn(x[j + QK / 2], inverse)) << 4);
}
// A thread makes a block of 32 numbers.
__global__ void store_blocks_kernel(struct store_rows_args a) {
    const int64_t blocks = a.src.cols / QK, at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= a.src.rows * blocks) return;
    const int64_t i = at / blocks, b = at % blocks;
    const float *from = row_f32(a.src, i) + b * QK;
    void *row = row_at(a.dst, a.rows[i]);
    if (a.dst.dtype == DTYPE_Q8_0) store_q8_0(from, (struct block_q8_0 *)row + b);
    else store_q4_0(from, (struct block_q4_0 *)row + b);
}

static void cuda_store_rows(const struct store_rows_args *a) {
    assert(is_cache(a->dst, a->head_size) && is_f32(a->src) && a->dst.cols == a->src.cols);
    const int64_t threads = a->src.rows * ceil_div(a->src.cols, is_blocks(a->dst.dtype) ? (int)QK : (int)EACH);
    if (threads == 0) return;
    if (is_blocks(a->dst.dtype)) LAUNCH((store_blocks_kernel), ceil_div(threads, THREADS), THREADS, 0, *a);
    else LAUNCH((store_numbers_kernel), ceil_div(threads, THREADS), THREADS, 0, *a);
}

// ---------------------------------------------------------------------------------------------------------------
// x[i,h,:] *= 1 / (1 + e^(sinks[h] - lse[i,h]))

__global__ void sink_kernel(struct sink_args a) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, H = a.sinks.cols, D = a.x.cols / H;
    if (at >= a.x.rows * a.x.cols) return;
    const int64_t i = at / a.x.cols, c = at % a.x.cols, h = c / D;
    const float share = (float)(1 / (1 + exp((double)row_f32(a.sinks, 0)[h] - (double)a.lse[i * H + h])));
    row_f32(a.x, i)[c] *= share;
}
static void cuda_sink(const struct sink_args *a) {
    assert(is_f32(a->x) && is_f32(a->sinks) && a->sinks.rows == 1 && a->lse && a->x.cols % a->sinks.cols == 0);
    const int64_t numbers = a->x.rows * a->x.cols;
    if (numbers > 0) LAUNCH((sink_kernel), ceil_div(numbers, THREADS), THREADS, 0, *a);
}

void cuda_fill_store_rows(struct backend *b) {
    b->store_rows = cuda_store_rows;
    b->sink = cuda_sink;
}
