// dotprod.c: the kernels for 64-bit ARM processors with dots of bytes: ARMv8.2's option, there since about 2018.
//
// As neon.c, but for products of block formats: one instruction is sixteen products of bytes.
#include "cpu/cpu.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__linux__)
#include "cpu/words_neon.h"

#include <sys/auxv.h>

#define KERNELS_FILL cpu_fill_dotprod
INLINE bool kernels_processor(void) {
    enum { ASIMDDP = 20 };
    return getauxval(AT_HWCAP) >> ASIMDDP & 1;
}

#include "cpu/kernels.h"

#else
bool cpu_fill_dotprod(struct backend *b) {
    (void)b;
    return false;
}
#endif
