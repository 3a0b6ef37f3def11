#include "cuda/attend.cuh"

void cuda_fill_attend(struct backend *b) { cuda_fill_store_rows(b); }
