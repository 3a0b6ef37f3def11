// kernels_base.h: small words that all kernels share: scratch slots, counting, rows of tensors. Part of kernels.h, and of
// amx.c.
#include "core/blocks.h"

#include <float.h>
#include <math.h>
#include <string.h>

// Which scratch serves what; see cpu_scratch. A shared slot is thread 0's, taken before pieces
// start.
enum { SLOT_A, SLOT_B, SLOT_C, SLOT_SHARED };
enum { LANES = 64 }; // of a sum along a row

INLINE int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE float one_if_zero(float scale) { return scale == 0 ? 1 : scale; }
INLINE float *row_f32(const struct tensor *t, int64_t i) {
    return (float *)(void *)((char *)t->data + (size_t)i * t->row_bytes);
}
INLINE int64_t row_stride(const struct tensor *t) {
    return (int64_t)(t->row_bytes / sizeof(float));
}
INLINE bool is_f32(const struct tensor *t) {
    return t->dtype == DTYPE_F32 && t->layout == LAYOUT_ROWS && t->mats == 1 &&
           t->row_bytes % sizeof(float) == 0;
}
INLINE bool same_shape(const struct tensor *a, const struct tensor *b) {
    return a->rows == b->rows && a->cols == b->cols;
}
// Rows per piece so that a piece is worth handing out.
INLINE int64_t grain_of_rows(int64_t cols, int64_t work) {
    return max_i64(1, work / max_i64(1, cols));
}
