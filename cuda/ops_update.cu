#include "cuda/cuda.cuh"

void cuda_fill_updates(struct backend *b) { (void)b; }
