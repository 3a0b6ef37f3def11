// i8mm.c: the kernels for 64-bit ARM processors that multiply two by two rows of bytes: ARMv8.6, there since about 2021.
//
// As dotprod.c, with its bits, but for products of block formats with more than FEW_ROWS rows: one instruction is 32
// products of bytes where a dot is sixteen, so kernels_squares.h multiplies what dotprod.c leaves to kernels_pairs.h.
// No such processor was here: make check-arm tests what it computes; what it gains is the count of instructions below.
//
// The floor for 32 terms, 8 rows and 8 columns, in vector instructions: 128 products of squares (dots: 256), and for the
// floats 5 each of 16 squares (shift, add the start or the min, make float, times step, times d), 80 as for dots. 208 for
// 336. Loads: 64 vectors, half of them codes, without which a dot has 128 of x alone, each spread over a vector; then 32 of
// sums and factors. Codes lie in L1 after a zip a quad, once for 64 rows.
#include "cpu/cpu.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8) && defined(__linux__)
#include "cpu/words_neon.h"

#include <sys/auxv.h>

#define KERNELS_FILL cpu_fill_i8mm
INLINE bool kernels_processor(void) {
    enum { ASIMDDP = 20, I8MM = 13 };
    return getauxval(AT_HWCAP) >> ASIMDDP & getauxval(AT_HWCAP2) >> I8MM & 1;
}

#include "cpu/kernels.h"

#else
bool cpu_fill_i8mm(struct backend *b) {
    (void)b;
    return false;
}
#endif
