// matmul_blocks.cuh: what the two files of products with block formats share.
#ifndef LEHR_CUDA_MATMUL_BLOCKS_CUH
#define LEHR_CUDA_MATMUL_BLOCKS_CUH

#include "cuda/blocks.cuh"
#include "cuda/product.cuh"

// PRECISION_BF16 on tensor cores: w packed rows of format d. With runs, of each expert (matmul_blocks_rounded.cu).
void cuda_rounded_blocks(const struct product_out &out, const struct tensor &x, const struct factor &w, enum dtype d, const struct runs *runs,
                         const struct run_weights *weights);
#endif
