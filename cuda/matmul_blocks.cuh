// matmul_blocks.cuh: what the files of products with block formats say to each other, and what branches.cu asks of them.
#ifndef LEHR_CUDA_MATMUL_BLOCKS_CUH
#define LEHR_CUDA_MATMUL_BLOCKS_CUH

#include "cuda/blocks.cuh"
#include "cuda/product.cuh"

// PRECISION_BF16 on tensor cores: w packed rows of format d. With runs, of each expert (matmul_blocks_rounded.cu).
void cuda_rounded_blocks(const struct product_out &out, const struct tensor &x, const struct factor &w, enum dtype d, const struct runs *runs,
                         const struct run_weights *weights);

// A weight of block format, packed.
struct packed {
    const char *data;
    size_t row_bytes;
    int64_t rows;
};
// Rows of x in sixteen bits (wide.cuh); data NULL: none.
struct wide {
    char *data;
    size_t row_bytes;
    int units, chunks; // chunks of 32 columns that there are
};
// x so, or with a norm what rmsnorm makes of it, in one launch. It lies in scratch; behind it is *more, for as many rows of more_cols.
struct wide cuda_widen(const struct tensor &x, const struct tensor &norm, float eps, int64_t more_cols, struct wide *more);

// Products of one x with several weights of one format: one launch, where rows are few. first: the number of a weight's first
// tile, filled in by what launches.
struct wide_list {
    struct { struct packed w; struct product_out out; int first; } of[PROJECT_MOST];
    int count;
};
void cuda_wide_products(struct wide_list *list, enum dtype d, const struct wide &x);

// act(x gate^T) * (x up^T + bias) [n,F], or act(x up^T + bias) where there is no gate; written to out, and to wide instead if that has
// data: what down reads, without a launch of its own. bias may be NULL. For at most FEW_MOST rows.
enum { FEW_MOST = 96 };
struct wide_gated {
    struct packed up;
    const char *gate; // of up's shape and format; NULL: none
    const float *bias;
    enum glu_kind kind;
    struct product_out out;
    struct wide wide;
};
void cuda_wide_gated(const struct wide_gated *a, enum dtype d, const struct wide &x);
#endif
