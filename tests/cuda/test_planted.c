// test_planted.c: the processor in a GPU's place finds what it says it finds (cuda_on_cpu.h): a kernel with a planted fault is
// either stopped with a sentence or computes something wrong with one of a few seeds, and the same kernel without it never.
#include "backend.h"
#include "tests/cuda/place.h"
#include "tests/cuda/planted.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>

#ifdef CUDA_ON_CPU

enum { BLOCKS = 3, SEEDS = 8 };

// How many of the seeds gave other sums than the numbers have.
static int wrong_with(enum planted fault) {
    struct err err;
    const struct backend *b = backend_cuda(0, &err);
    cr_assert(b, "%s", err.text);
    float numbers[BLOCKS * 256], sum[BLOCKS], expected[BLOCKS] = {0};
    for (int i = 0; i < BLOCKS * 256; i++) numbers[i] = (float)(i % 7 + 1), expected[i / 256] += numbers[i];
    float *in = b->alloc(sizeof numbers, "numbers", &err), *out = b->alloc(sizeof sum, "sums", &err);
    int wrong = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        on_cpu_seed(seed);
        b->upload(in, numbers, sizeof numbers);
        planted_sums(fault, out, in, BLOCKS);
        b->download(sum, out, sizeof sum);
        bool good = true;
        for (int i = 0; i < BLOCKS; i++) good = good && sum[i] == expected[i];
        wrong += !good;
    }
    b->free(in), b->free(out);
    return wrong;
}

Test(planted, nothing_planted_is_right_in_every_order) { cr_assert_eq(wrong_with(PLANTED_NOTHING), 0); }
Test(planted, a_missing_barrier_shows) { cr_assert_geq(wrong_with(PLANTED_BARRIER), SEEDS / 2); }
Test(planted, a_missing_barrier_of_a_warp_shows) { cr_assert_geq(wrong_with(PLANTED_RACE_OF_WARPS), SEEDS / 2); }
Test(planted, missing_zeros_show) { cr_assert_eq(wrong_with(PLANTED_ZEROING), SEEDS); }
Test(planted, a_copy_that_nobody_waited_for_shows) { cr_assert_eq(wrong_with(PLANTED_COPY), SEEDS); }
#ifdef __SANITIZE_ADDRESS__ // which ends the program itself
Test(planted, a_write_behind_a_shared_array_ends, .exit_code = 1) { wrong_with(PLANTED_OVERRUN); }
Test(planted, a_read_behind_a_shared_array_ends, .exit_code = 1) { wrong_with(PLANTED_OVERREAD); }
#else
Test(planted, a_write_behind_a_shared_array_ends, .signal = SIGABRT) { wrong_with(PLANTED_OVERRUN); }
Test(planted, a_read_behind_a_shared_array_shows) { cr_assert_eq(wrong_with(PLANTED_OVERREAD), SEEDS); }
#endif
Test(planted, a_shuffle_that_half_a_warp_misses_ends, .signal = SIGABRT) { wrong_with(PLANTED_DIVERGENT); }
Test(planted, a_barrier_in_two_places_ends, .signal = SIGABRT) { wrong_with(PLANTED_BARRIER_NOT_ALL_REACH); }

// Products of a warpgroup.
static bool wgmma_is_right(enum planted_wgmma fault) {
    struct err err;
    const struct backend *b = backend_cuda(0, &err);
    cr_assert(b, "%s", err.text);
    float sum[64 * 64], *out = b->alloc(sizeof sum, "sums", &err);
    planted_wgmma(fault, out);
    b->download(sum, out, sizeof sum);
    b->free(out);
    for (int i = 0; i < 64 * 64; i++)
        if (sum[i] != (float)(i / 64 + i % 64)) return false;
    return true;
}
Test(planted, a_product_of_a_warpgroup_is_right) { cr_assert(wgmma_is_right(PLANTED_WGMMA_NOTHING)); }
Test(planted, a_store_that_tensor_cores_need_not_see_ends, .signal = SIGABRT) { wgmma_is_right(PLANTED_WGMMA_PROXY); }
Test(planted, sums_that_were_not_handed_over_end, .signal = SIGABRT) { wgmma_is_right(PLANTED_WGMMA_FENCE); }
Test(planted, sums_that_nobody_waited_for_show) { cr_assert_not(wgmma_is_right(PLANTED_WGMMA_WAIT)); }
Test(planted, a_tile_written_while_it_is_read_ends, .signal = SIGABRT) { wgmma_is_right(PLANTED_WGMMA_EARLY); }
Test(planted, a_wrong_stride_shows) { cr_assert_not(wgmma_is_right(PLANTED_WGMMA_STRIDE)); }
Test(planted, a_tile_in_a_wrong_place_shows) { cr_assert_not(wgmma_is_right(PLANTED_WGMMA_ALIGN)); }
Test(planted, a_warp_that_is_missing_ends, .signal = SIGABRT) { wgmma_is_right(PLANTED_WGMMA_WARPS); }

// Memory of the device is not the host's.
#ifdef __SANITIZE_ADDRESS__
Test(planted, device_memory_read_by_the_host_ends, .exit_code = 1) {
#else
Test(planted, device_memory_read_by_the_host_ends, .signal = SIGSEGV) {
#endif
    struct err err;
    const struct backend *b = backend_cuda(0, &err);
    const volatile float *p = b->alloc(64, "numbers", &err);
    cr_assert(p);
    (void)*p;
}

#endif
