// wgmma.cu: may this GPU's wgmma be believed? One small product by every tile of wgmma.cuh, its factors lying along and across.
//
// Two things are asked. That the sums are those of mma.sync, but for rounding: no for code that was not compiled for sm_90a, where
// the kernels have no body, and for a layout in shared memory that was not meant. And that all tiles give the same bits: rule 2 of
// backend.h rests on it, and no manual says it. A no to either leaves every product to mma.sync.
#include "cuda/wgmma.cuh"

#include <stdlib.h>

// More than one tile of each shape, and no whole number of them. A row of any of the factors is a multiple of 16 bytes.
enum { N = 136, M = 264, K = 136, BYTES_X = N * K * 2, BYTES_W = M * K * 2, BYTES_OUT = N * M * 4 };

struct asked {
    const struct backend *b;
    char *room; // x, w, both turned over, and a product
    float *sums, *first;
};
static bool room_free(const struct asked *a, bool agrees) {
    a->b->free(a->room), mem_free(a->sums), mem_free(a->first);
    return agrees;
}
static bool filled(struct asked *a) {
    struct err err;
    a->room = (char *)a->b->alloc(2 * (BYTES_X + BYTES_W) + BYTES_OUT, "check of a product", &err);
    a->sums = (float *)mem_alloc(BYTES_OUT, "sums"), a->first = (float *)mem_alloc(BYTES_OUT, "sums");
    if (!a->room) return false;
    uint16_t *both = (uint16_t *)mem_alloc(2 * (BYTES_X + BYTES_W), "factors"), *x = both, *w = x + N * K, *turned_x = w + M * K, *turned_w = turned_x + N * K;
    for (int i = 0; i < N + M; i++)
        for (int k = 0; k < K; k++) {
            const uint16_t one = bf16_from_f32((float)rng_below(1, (uint64_t)i, (uint64_t)k, 2001) / 1000 - 1);
            if (i < N) x[i * K + k] = turned_x[k * N + i] = one;
            else w[(i - N) * K + k] = turned_w[k * M + i - N] = one;
        }
    a->b->upload(a->room, both, 2 * (BYTES_X + BYTES_W));
    mem_free(both);
    return true;
}

template <class E> static void multiply(const struct asked *a, bool turned_x, bool turned_w, float *to) {
    char *x = a->room + (turned_x ? BYTES_X + BYTES_W : 0), *w = a->room + BYTES_X + (turned_w ? BYTES_X + BYTES_W : 0), *out = a->room + 2 * (BYTES_X + BYTES_W);
    const struct product_out sums = product_out_of(tensor_f32((float *)out, N, M), 1, false);
    a->b->zero(out, BYTES_OUT);
    product_start<E>(sums, (struct factor){x, (size_t)(turned_x ? N : K) * 2, N, true}, (struct factor){w, (size_t)(turned_w ? M : K) * 2, M, true}, K);
    a->b->download(to, out, BYTES_OUT);
}
// Sums of K products of numbers within 1; a tensor core may cut off each a little below f32.
static bool near(const float *a, const float *b) {
    for (int i = 0; i < N * M; i++)
        if (!(fabsf(a[i] - b[i]) <= K * 0x1p-19f)) return false;
    return true;
}
template <class S, class Rows, class Cols> static void by_wgmma(const struct asked *a, float *to) {
    multiply<wgmma<S, typename wgmma_takes<Rows>::taker, typename wgmma_takes<Cols>::taker>>(a, Rows::ACROSS, Cols::ACROSS, to);
}
template <class S, class Rows, class Cols> static bool same_bits(const struct asked *a) {
    by_wgmma<S, Rows, Cols>(a, a->sums);
    return memcmp(a->sums, a->first, BYTES_OUT) == 0;
}
template <class Rows, class Cols, class Few> static bool agrees(const struct asked *a) {
    multiply<gemm<gemm_small, Rows, Cols>>(a, Rows::ACROSS, Cols::ACROSS, a->sums);
    by_wgmma<Few, Rows, Cols>(a, a->first);
    return near(a->sums, a->first) && same_bits<wgmma_small, Rows, Cols>(a) && same_bits<wgmma_large, Rows, Cols>(a) && same_bits<wgmma_huge, Rows, Cols>(a);
}

bool cuda_wgmma_agrees(const struct backend *b) {
    typedef take_bf16<LIES_ALONG> along;
    typedef take_bf16<LIES_ACROSS> across;
    struct asked a = {};
    a.b = b;
    if (!filled(&a)) return room_free(&a, false);
    return room_free(&a, agrees<along, along, wgmma_few>(&a) && agrees<along, across, wgmma_few_across>(&a) && agrees<across, across, wgmma_few_across>(&a));
}
