// attend.cuh: what the files of attention share: how keys and values are read, and copies of them in bf16 for tensor cores.
//
// "Pairs" are a query row and a query head, those of one kv head numbered row * group + (head in group), so that all heads of a
// group, and neighbouring rows, share the keys that a block reads.
#ifndef LEHR_ATTEND_CUH
#define LEHR_ATTEND_CUH

#include "cuda/cuda.cuh"

#define INLINE static __device__ __forceinline__
#ifndef UNROLL
#ifdef CUDA_ON_CPU
#define UNROLL
#define UNROLL_BY(n)
#else
#define UNROLL_TEXT_(text) _Pragma(#text)
#define UNROLL _Pragma("unroll")                     // where arrays must stay in registers
#define UNROLL_BY(n) UNROLL_TEXT_(unroll n)          // where loads should be under way together, or 1: where registers are dear
#endif
#endif

void cuda_fill_store_rows(struct backend *b);  // store_rows.cu
void cuda_fill_attend_back(struct backend *b); // attend_back.cu

static inline bool is_blocks(enum dtype d) { return d == DTYPE_Q8_0 || d == DTYPE_Q4_0; }
static inline bool is_cache(const struct tensor &t, int64_t head_size) {
    struct tensor rows = t;
    rows.layout = LAYOUT_ROWS; // in either it lies row after row
    if (t.layout == LAYOUT_DEVICE && t.rows % CACHE_ROWS) return false;
    if (is_blocks(t.dtype)) return is_rows(rows) && head_size % QK == 0;
    return is_rows(rows) && (t.dtype == DTYPE_F32 || t.dtype == DTYPE_F16 || t.dtype == DTYPE_BF16);
}

INLINE int warp_least(int x) {
    for (int far = WARP / 2; far > 0; far /= 2) x = min(x, __shfl_xor_sync(0xffffffffu, x, far));
    return x;
}

// ---------------------------------------------------------------------------------------------------------------
// Eight numbers of a head at once: load_eight asks for them, eight_floats makes them floats, so that several loads can be under
// way before the first is used. LOOSE: numbers of any address or count, one by one; behind the head's end zeros.

enum kind { KIND_F32, KIND_F16, KIND_BF16, KIND_Q8_0, KIND_Q4_0, KIND_LOOSE };
static inline enum kind kind_of(const struct tensor &t, int64_t head_size) {
    if (is_blocks(t.dtype)) return t.dtype == DTYPE_Q8_0 ? KIND_Q8_0 : KIND_Q4_0;
    if (!by_sixteen(t) || head_size % 8) return KIND_LOOSE;
    return t.dtype == DTYPE_F32 ? KIND_F32 : t.dtype == DTYPE_F16 ? KIND_F16 : KIND_BF16;
}
INLINE size_t head_bytes(enum dtype d, int64_t numbers) {
    return d == DTYPE_F32 ? (size_t)numbers * 4 : d == DTYPE_Q8_0 ? (size_t)numbers / QK * sizeof(struct block_q8_0)
         : d == DTYPE_Q4_0 ? (size_t)numbers / QK * sizeof(struct block_q4_0) : (size_t)numbers * 2;
}

struct eight { uint32_t w[8]; };
// Numbers [c, c + 8) of the D of a head; c a multiple of 8, below D.
template <int KIND> INLINE struct eight load_eight(const char *head, enum dtype dtype, int c, int D) {
    struct eight r;
    if (KIND == KIND_F32) {
        const uint4 *p = (const uint4 *)(const void *)(head + 4 * c), a = p[0], b = p[1];
        r.w[0] = a.x, r.w[1] = a.y, r.w[2] = a.z, r.w[3] = a.w, r.w[4] = b.x, r.w[5] = b.y, r.w[6] = b.z, r.w[7] = b.w;
    } else if (KIND == KIND_F16 || KIND == KIND_BF16) {
        const uint4 a = *(const uint4 *)(const void *)(head + 2 * c);
        r.w[0] = a.x, r.w[1] = a.y, r.w[2] = a.z, r.w[3] = a.w;
    } else if (KIND == KIND_LOOSE) {
        UNROLL for (int i = 0; i < 8; i++) r.w[i] = __float_as_uint(c + i < D ? number_at(head, c + i, dtype) : 0);
    } else { // blocks begin at even addresses: a scale, then 32 bytes, or 16 of two nibbles each
        const bool q8 = KIND == KIND_Q8_0;
        const uint16_t *p = (const uint16_t *)(const void *)(head + c / QK * (q8 ? sizeof(struct block_q8_0) : sizeof(struct block_q4_0)));
        const uint16_t *codes = p + 1 + (q8 ? c % QK : c % (QK / 2)) / 2;
        r.w[0] = codes[0] | (uint32_t)codes[1] << 16, r.w[1] = codes[2] | (uint32_t)codes[3] << 16, r.w[2] = p[0];
        if (!q8) r.w[3] = c % QK < QK / 2 ? 0 : 4; // in the lower or the upper nibbles
    }
    return r;
}
// 2^23 + byte i of w, as a float: its lowest bits are the byte.
INLINE float byte_float(uint32_t w, int i) { return __uint_as_float(__byte_perm(w, 0x4b000000u, 0x7440u | (unsigned)i)); }
template <int KIND> INLINE void eight_floats(const struct eight &r, float x[8]) {
    if (KIND == KIND_F32 || KIND == KIND_LOOSE) {
        UNROLL for (int i = 0; i < 8; i++) x[i] = __uint_as_float(r.w[i]);
    } else if (KIND == KIND_F16) {
        UNROLL for (int i = 0; i < 8; i++) x[i] = from_f16((uint16_t)(r.w[i / 2] >> 16 * (i % 2)));
    } else if (KIND == KIND_BF16) {
        UNROLL for (int i = 0; i < 8; i++) x[i] = from_bf16((uint16_t)(r.w[i / 2] >> 16 * (i % 2)));
    } else {
        const float d = from_f16((uint16_t)r.w[2]), zero = KIND == KIND_Q8_0 ? 8388608.f + 128 : 8388608.f + 8;
        UNROLL for (int i = 0; i < 8; i++) {
            const uint32_t codes = KIND == KIND_Q8_0 ? r.w[i / 4] ^ 0x80808080u : r.w[i / 4] >> r.w[3] & 0x0f0f0f0fu;
            x[i] = __fmul_rn(d, __fsub_rn(byte_float(codes, i % 4), zero));
        }
    }
}
// The same where the kind is not known before.
INLINE void read_eight(enum kind kind, const char *head, enum dtype dtype, int c, int D, float x[8]) {
    if (kind == KIND_F32) eight_floats<KIND_F32>(load_eight<KIND_F32>(head, dtype, c, D), x);
    else if (kind == KIND_F16) eight_floats<KIND_F16>(load_eight<KIND_F16>(head, dtype, c, D), x);
    else if (kind == KIND_BF16) eight_floats<KIND_BF16>(load_eight<KIND_BF16>(head, dtype, c, D), x);
    else if (kind == KIND_Q8_0) eight_floats<KIND_Q8_0>(load_eight<KIND_Q8_0>(head, dtype, c, D), x);
    else if (kind == KIND_Q4_0) eight_floats<KIND_Q4_0>(load_eight<KIND_Q4_0>(head, dtype, c, D), x);
    else eight_floats<KIND_LOOSE>(load_eight<KIND_LOOSE>(head, dtype, c, D), x);
}

// ---------------------------------------------------------------------------------------------------------------
// For tensor cores: heads of D numbers of any kind as bf16, each padded with zeros to `wide`, a multiple of 16, rows one after the
// other. lo, hi: of a cache only what `queries` rows see is made. (attend_bf16.cu)

static inline size_t rounded_bytes(int64_t rows, int64_t heads, int64_t wide) {
    return ((size_t)(rows * heads * wide) * 2 + 255) / 256 * 256;
}
struct tensor attend_rounded(const struct tensor &from, int64_t heads, int64_t wide, void *to, const int32_t *lo, const int32_t *hi,
                             int64_t queries);
// The least width of a tile that heads of D fit in, 0 where none is so wide.
static inline int tile_width(int64_t D) {
    return D <= 32 ? 32 : D <= 64 ? 64 : D <= 80 ? 80 : D <= 96 ? 96 : D <= 128 ? 128 : D <= 256 ? 256 : 0;
}

// Rows of a tile in shared memory are 16 bytes longer than wide: eight of them then lie in different banks, for ldmatrix.
enum { TILE_PAD = 8 };
// Fragments out of rows of `wide + TILE_PAD` numbers: for mma_bf16 of b[k][n], two neighbours in n at once.
// rows are n, columns k: rows [n, n + 16), columns [k, k + 16)
INLINE void tile_b(uint32_t b[4], const uint16_t *rows, int stride, int n, int k) {
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4(b, rows + (n + lane / 16 * 8 + lane % 8) * stride + k + lane / 8 % 2 * 8);
}
// rows are k, columns n: rows [k, k + 16), columns [n, n + 16)
INLINE void tile_b_turned(uint32_t b[4], const uint16_t *rows, int stride, int k, int n) {
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4_trans(b, rows + (k + lane / 8 % 2 * 8 + lane % 8) * stride + n + lane / 16 * 8);
}
// a[16][16] out of rows [row, row + 16), columns [k, k + 16)
INLINE void tile_a(uint32_t a[4], const uint16_t *rows, int stride, int row, int k) {
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4(a, rows + (row + lane % 16) * stride + k + lane / 16 * 8);
}
// a[16][16] out of two neighbours d[16][8] of mma_bf16: a result is the next factor.
INLINE void tile_a_of(uint32_t a[4], const float left[4], const float right[4]) {
    a[0] = pack_bf16(left[0], left[1]), a[1] = pack_bf16(left[2], left[3]), a[2] = pack_bf16(right[0], right[1]), a[3] = pack_bf16(right[2], right[3]);
}
#endif
