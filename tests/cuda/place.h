// place.h: where the tests of cuda/ run. On the processor (-DCUDA_ON_CPU) the seed of all orders is told to cuda_on_cpu.cpp and
// printed; on a GPU there is nothing to do.
//
// Suites of other folders run on the GPU, too: the Makefile compiles them with this file in front, and every backend_cpu(NULL)
// they ask for is the GPU; the levels of the processor are what they are.
#ifndef LEHR_TESTS_PLACE_H
#define LEHR_TESTS_PLACE_H

#include "backend.h"

#ifdef CUDA_ON_CPU
void on_cpu_seed(uint64_t seed);
uint64_t on_cpu_launches(void);
void on_cpu_wgmma(bool yes); // is this a GPU that has it? true at first
#endif
bool cuda_wgmma_agrees(const struct backend *b); // of cuda.cuh, which is C++
// The GPU; ends the test where there is none.
const struct backend *place_gpu(void);
// backend_cpu as those suites see it.
const struct backend *place_backend(const char *level, struct err *err);

// At the start of a test that takes minutes where a processor stands in for a GPU: it is left out there, unless LEHR_LONG is set.
#ifdef CUDA_ON_CPU
#include <stdlib.h>
#define PLACE_LONG \
    if (!getenv("LEHR_LONG")) cr_skip_test("takes minutes on a processor in the place of a GPU: LEHR_LONG=1 does it")
#endif

#ifdef LEHR_ON_GPU
#define backend_cpu(level, err) place_backend(level, err)
#endif
#endif
