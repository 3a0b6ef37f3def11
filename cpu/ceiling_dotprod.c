// ceiling_dotprod.c: what --ceiling (ceiling.c) burns of ARM's dots of bytes.
#include "cpu/ceiling.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__linux__)
#define BYTES_DO vdotq_s32
#define BYTES_PRODUCTS 16
#include "cpu/ceiling_bytes.h"

static bool present(void) {
    enum { ASIMDDP = 20 };
    return getauxval(AT_HWCAP) >> ASIMDDP & 1;
}

static const struct burn rows[] = {{"int8 dotprod", "GOP/s", present, burn_int8}};
struct burns cpu_burns_dotprod(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_dotprod(void) { return (struct burns){0}; }
#endif
