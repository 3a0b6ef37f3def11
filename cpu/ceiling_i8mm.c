// ceiling_i8mm.c: what --ceiling (ceiling.c) burns of ARM's products of two by two rows of bytes.
#include "cpu/ceiling.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8) && defined(__linux__)
#define BYTES_DO vmmlaq_s32
#define BYTES_PRODUCTS 32
#include "cpu/ceiling_bytes.h"

static bool present(void) {
    enum { I8MM = 13 };
    return getauxval(AT_HWCAP2) >> I8MM & 1;
}

static const struct burn rows[] = {{"int8 i8mm", "GOP/s", present, burn_int8}};
struct burns cpu_burns_i8mm(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_i8mm(void) { return (struct burns){0}; }
#endif
