#include "cuda/cuda.cuh"

void cuda_fill_matmul(struct backend *b) { (void)b; }
