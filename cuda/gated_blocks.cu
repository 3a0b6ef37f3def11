// gated_blocks.cu: gated units with weights of block formats, few rows: both products, the bias, the activation and, where down is
// of a block format as well, what down reads, in one launch. A block of threads has 32 columns, a chunk of that.
//
// Both weights are read as one by the warps of a block, which take pieces of 16 or 32 rows by 256 columns by turns (wide.cuh): a
// block of the 14336 columns of an 8B model has 4 x 16 of them, and there are 448 blocks of 16 warps for 264 places.
#include "cuda/gate.cuh"
#include "cuda/wide.cuh"

template <enum dtype D, int MT, int NT>
__global__ void __launch_bounds__(few_shape<MT, NT>::THREADS, 2) gated_few_kernel(struct wide_gated a, int at_once, struct wide x) {
    typedef few_shape<MT, NT> S;
    enum { HALF = CHUNK / S::COLS }; // sets of one weight
    const int row = (int)blockIdx.y * S::ROWS, col = (int)blockIdx.x * CHUNK;
    struct packed first = a.up;
    if (a.gate) first.data = a.gate;
    float *sums = few_sums<D, MT, NT>(first, a.up.data, HALF, a.gate ? 2 * HALF : (int)HALF, at_once, x, row, (int)a.out.rows, col);
    const float *ups = a.gate ? sums + HALF * S::OUTPUTS : sums;
    // Four neighbours of a row for each thread, whole warps.
    for (int o = (int)threadIdx.x; o < S::ROWS * CHUNK / QUAD; o += (int)blockDim.x) {
        const int r = o / (CHUNK / QUAD), c = o % (CHUNK / QUAD) * QUAD, at = c / S::COLS * S::OUTPUTS + r * S::COLS + c % S::COLS;
        struct quad q;
        for (int j = 0; j < QUAD; j++) {
            float up = ups[at + j];
            if (a.bias) up = __fadd_rn(up, col + c + j < a.out.cols ? a.bias[col + c + j] : 0);
            q.v[j] = a.gate ? gated(a.kind, sums[at + j], up) : gated(a.kind, up, 1);
        }
        const bool here = row + r < a.out.rows;
        if (a.wide.data) widen_four(here ? a.wide.data + (size_t)(row + r) * a.wide.row_bytes : NULL, a.wide.units, col + c, q.v);
        else
            for (int j = 0; j < QUAD; j++) product_put(a.out, row + r, col + c + j, q.v[j]);
    }
}

template <enum dtype D, int MT, int NT> static void gated_start(const struct wide_gated &a, const struct wide &x) {
    typedef few_shape<MT, NT> S;
    const struct few_turns turns = few_turns<MT, NT>(x.units, (a.gate ? 2 : 1) * CHUNK / S::COLS);
    LAUNCH((gated_few_kernel<D, MT, NT>), dim3(ceil_div(a.out.cols, CHUNK), ceil_div(a.out.rows, S::ROWS)), turns.threads, turns.bytes, a, turns.at_once, x);
}
template <enum dtype D> static void gated_by_rows(const struct wide_gated &a, const struct wide &x) { BY_FEW_ROWS(a.out.rows, gated_start, a, x); }

void cuda_wide_gated(const struct wide_gated *a, enum dtype d, const struct wide &x) {
    assert(a->out.rows <= FEW_MOST && (!a->wide.data || a->out.cols % CHUNK == 0));
    switch (d) {
#define GATED_CASE(upper, lower) \
    case DTYPE_##upper: gated_by_rows<DTYPE_##upper>(*a, x); break;
        CODED_DTYPES(GATED_CASE)
    default: assert(!"no block format");
    }
}
