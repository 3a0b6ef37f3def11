// avx512.c: the kernels for processors with AVX-512 (F, BW, DQ, VL, VNNI), FMA and F16C.
//
// The vector words stand in words_avx512.h; what the ops do with them is in kernels.h, the same source for avx2.c. On
// other machines this file compiles to a function that says no.
#include "cpu/cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) &&                      \
    defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__FMA__) && defined(__F16C__)
#include "cpu/words_avx512.h"

#define TILE_GROUPS 4 // rows of a GEMM tile / 3: 12 x 32 values in 24 of the 32 registers
#define TILE_PASS 8    // rows of a whole-number tile (kernels_pairs.h)
#define TILE_VECTORS 2 // and its vectors of columns
#define KERNELS_FILL cpu_fill_avx512

#include "cpu/kernels.h"

void cpu_panel_make(const struct tensor *w, int64_t i, unsigned char *to) { panel_make(w, i, to); }

#else
bool cpu_fill_avx512(struct backend *b) {
    (void)b;
    return false;
}
#endif
