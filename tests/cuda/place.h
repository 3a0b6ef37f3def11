// place.h: where the tests of cuda/ run. On the processor (-DCUDA_ON_CPU) the seed of all orders is told to cuda_on_cpu.cpp and
// printed; on a GPU there is nothing to do.
#ifndef LEHR_TESTS_PLACE_H
#define LEHR_TESTS_PLACE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef CUDA_ON_CPU
void on_cpu_seed(uint64_t seed);
static inline void place_begin(void) {
    const char *said = getenv("LEHR_SEED");
    const uint64_t seed = said ? strtoull(said, NULL, 10) : 1;
    printf("cuda on cpu: orders of seed %llu\n", (unsigned long long)seed);
    on_cpu_seed(seed);
}
#else
static inline void place_begin(void) {}
#endif
#endif
