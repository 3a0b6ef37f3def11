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
#include "cpu/kernels_base.h"
#include "cpu/kernels_matmul.h"
#include "cpu/kernels_ops.h"
#include "cpu/kernels_update.h"
#include "cpu/kernels_cache.h"
#include "cpu/kernels_held.h"
#include "cpu/kernels_few.h"
#include "cpu/kernels_attend.h"

bool KERNELS_FILL(struct backend *b) {
    if (!kernels_processor()) return false;
    b->weight_load = weight_load;
    b->embed = embed;
    b->matmul = matmul;
    b->matmul_dx = matmul_dx;
    b->matmul_dw = matmul_dw;
    fill_ops(b);
    b->update = update;
    fill_attend(b);
    return true;
}
