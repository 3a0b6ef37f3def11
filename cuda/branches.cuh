// branches.cuh: what branches.cu asks of weights of numbers (few_numbers.cu); of block formats: matmul_blocks.cuh.
#ifndef LEHR_CUDA_BRANCHES_CUH
#define LEHR_CUDA_BRANCHES_CUH

#include "cuda/matmul_blocks.cuh"

// Products in PRECISION_F32 of one x of at most FEW_NUMBERS rows with weights of one dtype, in one launch.
enum { FEW_NUMBERS = 32 };
void cuda_few_products(const struct matmul_args *a, int count);

// out = act(x gate^T) * (x up^T + bias), weights of one dtype with rows equally far apart; bias may be NULL.
struct few_gated {
    struct product_out out;
    const float *bias;
    enum glu_kind kind;
};
void cuda_few_gated(const struct few_gated *a, const struct tensor &x, const struct tensor &gate, const struct tensor &up);
#endif
