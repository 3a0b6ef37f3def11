// place.c: the one GPU of a test process.
#include "tests/cuda/place.h"

#include <criterion/criterion.h>
#include <stdlib.h>

const struct backend *place_gpu(void) {
    static const struct backend *b;
    struct err err = {{0}};
    if (b) return b;
#ifdef CUDA_ON_CPU
    const char *said = getenv("LEHR_SEED");
    const uint64_t seed = said ? strtoull(said, NULL, 10) : 1;
    on_cpu_seed(seed);
#endif
    b = backend_cuda(0, &err);
    cr_assert(b, "%s", err.text);
    return b;
}

const struct backend *place_backend(const char *level, struct err *err) { return level ? backend_cpu(level, err) : place_gpu(); }
