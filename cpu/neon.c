// neon.c: the kernels for every 64-bit ARM processor.
//
// The vector words stand in words_neon.h; what the ops do with them is in kernels.h, the same source as for avx2.c. Run
// under an emulator only (make check-arm): what it computes is tested, how fast it is nobody has measured. On other
// machines this file compiles to a function that says no.
#include "cpu/cpu.h"

#if defined(__aarch64__)
#include "cpu/words_neon.h"

#define KERNELS_FILL cpu_fill_neon
INLINE bool kernels_processor(void) { return true; }

#include "cpu/kernels.h"

#else
bool cpu_fill_neon(struct backend *b) {
    (void)b;
    return false;
}
#endif
