// matmul_blocks.cu: products with weights of block formats. Not here yet; who asks is told so.
#include "cuda/cuda.cuh"

#include <stdlib.h>

static void missing(void) {
    fprintf(stderr, "cuda: products with block formats are missing\n");
    abort();
}
void cuda_matmul_blocks(const struct matmul_args *a) { (void)a, missing(); }
void cuda_matmul_experts_blocks(const struct matmul_experts_args *a) { (void)a, missing(); }
