// test_launches.c: decoding takes few launches, as branches.cu promises. Counted on the processor in the place of a GPU.
#include "backend.h"

#include <criterion/criterion.h>
#include <string.h>

#include "tests/cuda/place.h"

#ifdef CUDA_ON_CPU
enum { K = 256, F = 512, M = 64 };
static struct err err;
static struct tensor room(int64_t rows, int64_t cols) {
    const struct tensor t = tensor_f32(place_gpu()->alloc((size_t)(rows * cols) * sizeof(float), "a room", &err), rows, cols);
    cr_assert(t.data);
    return t;
}
static struct tensor weight(enum dtype d, int64_t rows, int64_t cols) {
    struct tensor from = {NULL, d, LAYOUT_ROWS, 1, rows, cols, 0}, to;
    bool owned;
    cr_assert(dtype_row_bytes(d, cols, &from.row_bytes));
    from.data = mem_array((size_t)rows, from.row_bytes, "a weight");
    memset(from.data, 0, (size_t)rows * from.row_bytes);
    cr_assert(place_gpu()->weight_load(&to, &from, &owned, &err), "%s", err.text);
    return to; // and stays: the process ends with the test
}
static int project_launches(enum dtype q, enum dtype v, int64_t n) {
    const struct project_args a = {.x = room(n, K), .norm = room(1, K), .normed = room(n, K), .eps = 1e-5f, .count = 3, .precision = PRECISION_F32,
                                   .to = {{room(n, M), weight(q, M, K)}, {room(n, M), weight(q, M, K)}, {room(n, M), weight(v, M, K)}}};
    const uint64_t before = on_cpu_launches();
    place_gpu()->project(&a);
    return (int)(on_cpu_launches() - before);
}
static int feed_forward_launches(enum dtype up, enum dtype down, int64_t n, bool biased) {
    struct feed_forward_args a = {.out = room(n, K), .x = room(n, K), .norm = room(1, K), .normed = room(n, K), .eps = 1e-5f, .gate = weight(up, F, K), .up = weight(up, F, K),
                                  .down = weight(down, K, F), .gates = room(n, F), .ups = room(n, F), .kind = GLU_SILU, .accumulate = true, .precision = PRECISION_F32};
    a.product = a.gates;
    if (biased) a.up_bias = room(1, F);
    const uint64_t before = on_cpu_launches();
    place_gpu()->feed_forward(&a);
    return (int)(on_cpu_launches() - before);
}

Test(cuda_launches, of_decoding_are_few) {
    for (int64_t n = 1; n <= 16; n += 5) {
        cr_expect_eq(project_launches(DTYPE_Q4_K, DTYPE_Q4_K, n), 2);
        cr_expect_eq(project_launches(DTYPE_Q4_K, DTYPE_Q6_K, n), 3);
        cr_expect_eq(project_launches(DTYPE_BF16, DTYPE_BF16, n), 2);
        cr_expect_eq(project_launches(DTYPE_F32, DTYPE_F32, n), 2);
        cr_expect_eq(feed_forward_launches(DTYPE_Q4_K, DTYPE_Q4_K, n, false), 3);
        cr_expect_eq(feed_forward_launches(DTYPE_Q8_0, DTYPE_Q6_K, n, true), 3);
        cr_expect_eq(feed_forward_launches(DTYPE_BF16, DTYPE_BF16, n, n > 1), 3);
    }
}
#endif
