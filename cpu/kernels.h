// kernels.h: the fast ops, written once over the vector words of avx2.c and avx512.c, which include
// this.
//
// Bodies in a header are the accepted exception to the style sheet: this source is compiled once
// per instruction set.
//
// The numerical rule that makes batches, threads and levels agree to the last bit: every sum has
// one order, fixed by what is summed. Vectors run ACROSS outputs, never along a sum, wherever that
// is possible (all products, all of attention but its softmax sums); where a sum lies along a row
// (norms, softmax, losses) it is taken in 64 fixed lanes, folded in one fixed order, which both
// vector widths can keep. So one row alone, 512 rows, AVX2, AVX-512, rows as in the file and packed
// panels give identical bits. Plain C agrees closely, not bitwise, as it cannot fuse.
#include "core/blocks.h"

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

#include "cpu/kernels_matmul.h"
#include "cpu/kernels_ops.h"
#include "cpu/kernels_cache.h"
#include "cpu/kernels_attend.h"

bool KERNELS_FILL(struct backend *b) {
    if (!kernels_processor()) return false;
    b->weight_load = weight_load;
    b->embed = embed;
    b->matmul = matmul;
    b->matmul_dx = matmul_dx;
    b->matmul_dw = matmul_dw;
    fill_ops(b);
    fill_attend(b);
    return true;
}
