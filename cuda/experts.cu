#include "cuda/cuda.cuh"

void cuda_fill_experts(struct backend *b) { (void)b; }
