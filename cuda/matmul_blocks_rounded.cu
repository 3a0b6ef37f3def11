// matmul_blocks_rounded.cu: products with weights of block formats in PRECISION_BF16: what gemm.cuh takes of packed rows.
#include "cuda/wgmma.cuh"
#include "cuda/matmul_blocks.cuh"

// Packed rows into tiles of gemm.cuh. A thread takes the part of one lane of a unit, of which 64 columns are in the tile.
template <enum dtype D> struct take_coded {
    enum { ACROSS = LIES_ALONG };
    template <int ROWS, int THREADS> struct held { struct unit of[ROWS * UNIT_LANES / THREADS]; };
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void fetch(held<ROWS, THREADS> &h, const struct factor &f, uint16_t *, int64_t row, int64_t k, int64_t end) {
        UNROLL
        for (int i = 0; i < ROWS * UNIT_LANES / THREADS; i++) {
            const int piece = (int)threadIdx.x + i * THREADS;
            const int64_t r = min(row + piece / UNIT_LANES, f.rows - 1); // what is behind the last row is not written
            unit_load<D>(&h.of[i], f.data + (size_t)r * f.row_bytes, coded_units(end), (int)(k / UNIT), piece % UNIT_LANES);
        }
    }
    // Chunks `first` and first + 1 of the unit.
    static __device__ __forceinline__ void put(const struct unit *x, uint16_t *tile, int r, int t, int u, int first, int chunks) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t words[2];
            unit_words<D>(x, first + i, words);
            UNROLL
            for (int h = 0; h < 2; h++) {
                float dl, ml, x4[4];
                unit_factor<D>(x, u, coded_group(D) == 16 ? 2 * (first + i) + h : first + i, &dl, &ml);
                word_numbers<D>(words[h], dl, ml, x4);
                const bool there = i < chunks;
                *(uint2 *)(void *)(along_at(tile, r, 4 * i + 2 * h + t / 2) + t % 2 * 4) =
                    make_uint2(there ? pack_bf16(x4[0], x4[1]) : 0, there ? pack_bf16(x4[2], x4[3]) : 0);
            }
        }
    }
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void store(const held<ROWS, THREADS> &h, const struct factor &, uint16_t *tile, int64_t, int64_t k, int64_t end) {
        const int chunks = (int)((end - k) / CHUNK), u = (int)(k / UNIT);
        UNROLL
        for (int i = 0; i < ROWS * UNIT_LANES / THREADS; i++) {
            const int piece = (int)threadIdx.x + i * THREADS, r = piece / UNIT_LANES, t = piece % UNIT_LANES;
            if (k % UNIT) put(&h.of[i], tile, r, t, u, 2, chunks); // all alike
            else put(&h.of[i], tile, r, t, u, 0, chunks);
        }
    }
};

typedef take_bf16<LIES_ALONG> along;
template <enum dtype D, class S>
static void start(const struct product_out &out, const struct factor &x, const struct factor &w, int64_t K, const struct runs *runs, const struct run_weights *weights) {
    if (runs) gemm_runs_start<S, along, take_coded<D>>(out, x, w, K, *runs, *weights);
    else gemm_start<S, along, take_coded<D>>(out, x, w, K);
}

void cuda_rounded_blocks(const struct product_out &out, const struct tensor &numbers, const struct factor &w, enum dtype d, const struct runs *runs,
                         const struct run_weights *weights) {
    const int64_t K = numbers.cols;
    const struct factor x = product_rounded(numbers, numbers.rows, cuda_scratch(SLOT_MATMUL, (size_t)numbers.rows * product_rounded_bytes(K)));
    const bool few = ceil_div(out.rows, runs ? runs->experts : 1) <= gemm_few::ROWS;
    switch (d) {
#define START_CASE(upper, lower)                                                                   \
    case DTYPE_##upper:                                                                            \
        if (few) start<DTYPE_##upper, gemm_few>(out, x, w, K, runs, weights);                      \
        else start<DTYPE_##upper, gemm_small>(out, x, w, K, runs, weights);                        \
        break;
        CODED_DTYPES(START_CASE)
    default: assert(!"no block format");
    }
}
