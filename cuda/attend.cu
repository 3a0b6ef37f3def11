#include "cuda/cuda.cuh"

void cuda_fill_attend(struct backend *b) { (void)b; }
