// test_ops.c: every op at every level this processor has, through the table of op_cases.c; what the backend says of
// itself; and the harness itself, held against backends that are broken on purpose.
#include "tests/op_cases.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <string.h>

static const char *const level_names[] = {"plain", "avx2", "avx512", "amx", "neon", "dotprod", "i8mm"};
// Levels that multiply in f32 whatever the precision asked for.
static const bool level_rounds[] = {true, false, false, true, false, false, false};
enum { LEVELS = COUNT_OF(level_names) };
static_assert(COUNT_OF(level_rounds) == LEVELS, "every level says whether it rounds");

static const struct backend *level(int i) {
    struct err err;
    return backend_cpu(level_names[i], &err);
}

// Calls `check` on every case of the table; counts them.
struct walk {
    bool (*check)(const struct op_case *c, const struct backend *b, double *worst, struct err *err);
    bool (*wanted)(const struct op_spec *spec);
    bool padded_too;
};

// amx has the products of avx512 but for those that round.
static bool worth_a_walk(const struct op_spec *spec, int l) {
    if (!spec->rounds) return strcmp(level_names[l], "amx") != 0;
    return level_rounds[l];
}

static void walk_level(const struct walk *w, int l) {
    const struct backend *b = level(l);
    if (!b) return; // said by a test of its own
    double worst = 0;
    char worst_case[160] = "none";
    int cases = 0, failed = 0;
    for (int i = 0; i < op_spec_count; i++) {
        const struct op_spec *spec = &op_specs[i];
        if (!w->wanted(spec) || !worth_a_walk(spec, l)) continue;
        for (int d = 0; d < DTYPE_COUNT; d++)
            for (int s = 0; s < spec->n_shapes && spec->dtypes & 1u << d; s++)
                for (int padded = 0; padded <= w->padded_too; padded++) {
                    struct op_case c = {spec, s, (enum dtype)d, padded};
                    struct err err;
                    double before = worst;
                    cases++;
                    bool good = w->check(&c, b, &worst, &err);
                    if (worst > before) op_case_name(&c, worst_case, sizeof worst_case);
                    if (good) continue;
                    if (failed++ < 5) cr_log_error("%s: %s", level_names[l], err.text);
                }
    }
    cr_assert(cases > 0);
    cr_assert(failed == 0, "%s: %d of %d cases failed", level_names[l], failed, cases);
    cr_log_info("%s: %d cases, worst error %.2f of what is allowed (%s)", level_names[l], cases,
                worst, worst_case);
}

static bool any(const struct op_spec *spec) { return (void)spec, true; }
static bool has_reference(const struct op_spec *spec) { return spec->reference; }
static bool has_gradient(const struct op_spec *spec) { return spec->n_pairs > 0; }
static bool has_rows(const struct op_spec *spec) { return spec->unit != 0; }

static bool by_single_rows(const struct op_spec *spec) { return spec->unit == 1; }

static bool check_equal(const struct op_case *c, const struct backend *b, double *worst,
                        struct err *err) {
    return op_check_equal(c, b, level(0), worst, err);
}
static bool check_rows(const struct op_case *c, const struct backend *b, double *worst,
                       struct err *err) {
    return (void)worst, op_check_rows(c, b, err);
}
static bool check_threads(const struct op_case *c, const struct backend *b, double *worst,
                          struct err *err) {
    return (void)worst, op_check_threads(c, b, err);
}

static bool check_nan(const struct op_case *c, const struct backend *b, double *worst,
                      struct err *err) {
    return (void)worst, op_check_nan(c, b, err);
}

static const struct walk reference = {op_check_reference, has_reference, true};
static const struct walk equal = {check_equal, any, true};
static const struct walk gradient = {op_check_gradient, has_gradient, false};
static const struct walk rows = {check_rows, has_rows, false};
static const struct walk threads = {check_threads, any, false};
static const struct walk nans = {check_nan, by_single_rows, false};

// ---------------------------------------------------------------------------------------------------------------
// Each level by each check.

Test(ops, plain_follows_the_formulas_in_double) { walk_level(&reference, 0); }
Test(ops, avx2_follows_the_formulas_in_double) { walk_level(&reference, 1); }
Test(ops, avx512_follows_the_formulas_in_double) { walk_level(&reference, 2); }
Test(ops, amx_follows_the_formulas_in_double) { walk_level(&reference, 3); }
Test(ops, avx2_equals_plain) { walk_level(&equal, 1); }
Test(ops, avx512_equals_plain) { walk_level(&equal, 2); }
Test(ops, amx_equals_plain) { walk_level(&equal, 3); }
Test(ops, plain_gradients_are_the_slopes_of_the_formulas) { walk_level(&gradient, 0); }
Test(ops, avx2_gradients_are_the_slopes_of_the_formulas) { walk_level(&gradient, 1); }
Test(ops, avx512_gradients_are_the_slopes_of_the_formulas) { walk_level(&gradient, 2); }
Test(ops, plain_rows_do_not_depend_on_their_batch) { walk_level(&rows, 0); }
Test(ops, avx2_rows_do_not_depend_on_their_batch) { walk_level(&rows, 1); }
Test(ops, avx512_rows_do_not_depend_on_their_batch) { walk_level(&rows, 2); }
Test(ops, amx_rows_do_not_depend_on_their_batch) { walk_level(&rows, 3); }
Test(ops, plain_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 0); }
Test(ops, avx2_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 1); }
Test(ops, avx512_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 2); }
Test(ops, amx_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 3); }
Test(ops, plain_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 0); }
Test(ops, avx2_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 1); }
Test(ops, avx512_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 2); }
Test(ops, amx_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 3); }
Test(ops, neon_follows_the_formulas_in_double) { walk_level(&reference, 4); }
Test(ops, neon_equals_plain) { walk_level(&equal, 4); }
Test(ops, neon_gradients_are_the_slopes_of_the_formulas) { walk_level(&gradient, 4); }
Test(ops, neon_rows_do_not_depend_on_their_batch) { walk_level(&rows, 4); }
Test(ops, neon_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 4); }
Test(ops, neon_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 4); }
Test(ops, dotprod_follows_the_formulas_in_double) { walk_level(&reference, 5); }
Test(ops, dotprod_equals_plain) { walk_level(&equal, 5); }
Test(ops, dotprod_rows_do_not_depend_on_their_batch) { walk_level(&rows, 5); }
Test(ops, dotprod_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 5); }
Test(ops, dotprod_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 5); }
Test(ops, i8mm_follows_the_formulas_in_double) { walk_level(&reference, 6); }
Test(ops, i8mm_equals_plain) { walk_level(&equal, 6); }
Test(ops, i8mm_rows_do_not_depend_on_their_batch) { walk_level(&rows, 6); }
Test(ops, i8mm_gives_the_same_bits_for_any_thread_count) { walk_level(&threads, 6); }
Test(ops, i8mm_lets_a_nan_out_of_its_row_and_no_other) { walk_level(&nans, 6); }

// A claim of supports() without a case, or a case against what it says, is a lie of one of them.
Test(ops, what_is_said_to_be_supported_is_what_the_table_runs) {
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        unsigned run[OP_COUNT] = {0};
        for (int i = 0; i < op_spec_count; i++) run[op_specs[i].op] |= op_specs[i].dtypes;
        // In formats these are made of matmul (test_branches.c).
        run[OP_PROJECT] |= run[OP_MATMUL], run[OP_FEED_FORWARD] |= run[OP_MATMUL];
        for (int op = 0; op < OP_COUNT; op++)
            for (int d = 0; d < DTYPE_COUNT; d++)
                cr_expect_eq(b->supports((enum op)op, (enum dtype)d), (run[op] >> d & 1) != 0,
                             "%s: %s %s", level_names[l], op_name((enum op)op),
                             dtype_row((enum dtype)d)->name);
    }
}

Test(ops, every_op_has_a_name_of_its_own) {
    for (int i = 0; i < OP_COUNT; i++) {
        cr_assert_not_null(op_name((enum op)i));
        for (int j = 0; j < i; j++) cr_assert_str_neq(op_name((enum op)i), op_name((enum op)j));
    }
}

// Chunks of 4096 in double: a float sum would lose every one of the small squares.
Test(ops, sum_of_squares_keeps_what_a_float_would_lose) {
    enum { N = 100000 };
    float *x = mem_array(N, sizeof *x, "values");
    x[0] = 4096;
    double expected = 4096.0 * 4096, out;
    for (int i = 1; i < N; i++) x[i] = 0.5f, expected += 0.25;
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        b->sum_squares(&(struct sum_squares_args){&out, tensor_f32(x, 1, N)});
        cr_assert_eq(out, expected, "%s: expected %.17g, found %.17g", level_names[l], expected,
                     out);
        b->sum_squares(&(struct sum_squares_args){&out, tensor_f32(x, 100, N / 100)});
        cr_assert_eq(out, expected);
        b->sum_squares(&(struct sum_squares_args){&out, tensor_f32(x, 0, N)});
        cr_assert_eq(out, 0);
    }
    mem_free(x);
}

// No rows is no work, not a crash.
Test(ops, a_batch_of_no_rows_does_nothing) {
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        float w[6] = {1, 2, 3, 4, 5, 6}, sum[6] = {1, 1, 1, 1, 1, 1}, none[1] = {7};
        struct tensor x = tensor_f32(none, 0, 3), out = tensor_f32(none, 0, 2),
                      weight = tensor_f32(w, 2, 3);
        b->matmul(&(struct matmul_args){.out = out, .x = x, .w = weight});
        b->matmul_dx(&(struct matmul_dx_args){.dx = x, .dout = out, .w = weight});
        b->matmul_dw(&(struct matmul_dw_args){
            .dw = tensor_f32(sum, 2, 3), .dout = out, .x = x, .segment = 4});
        b->rmsnorm(
            &(struct rmsnorm_args){.out = x, .x = x, .weight = tensor_f32(w, 1, 3), .eps = 1});
        b->add(&(struct add_args){.out = x, .a = x, .b = x});
        b->attend(&(struct attend_args){
            .out = x, .q = x, .k = x, .v = x, .heads = 1, .kv_heads = 1, .head_size = 3});
        for (int i = 0; i < 6; i++) cr_assert_eq(sum[i], 1);
        cr_assert_eq(none[0], 7);
    }
}

// The first call takes scratch; a later one of the same sizes, and a longer text in the same cache, take nothing.
Test(ops, nothing_is_allocated_after_the_first_call) {
    pool_start(3);
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        enum { CTX = 3000, D = 8 };
        float *cache = mem_array(CTX * D, sizeof *cache, "cache"), q[4 * D] = {0}, out[4 * D],
              x[64] = {0}, grad[64] = {0};
        int32_t lo[4] = {0}, hi[4] = {1, 1, 1, 1};
        struct attend_args attend = {.out = tensor_f32(out, 4, D),
                                     .q = tensor_f32(q, 4, D),
                                     .heads = 1,
                                     .kv_heads = 1,
                                     .k = tensor_f32(cache, CTX, D),
                                     .v = tensor_f32(cache, CTX, D),
                                     .lo = lo,
                                     .hi = hi,
                                     .head_size = D,
                                     .scale = 1};
        struct rmsnorm_back_args norm = {tensor_f32(grad, 8, 8),
                                         tensor_f32(grad, 1, 8),
                                         tensor_f32(x, 8, 8),
                                         tensor_f32(x, 8, 8),
                                         tensor_f32(x, 1, 8),
                                         1,
                                         8};
        struct matmul_args product = {
            .out = tensor_f32(out, 4, 8), .x = tensor_f32(q, 4, 8), .w = tensor_f32(x, 8, 8)};
        double sum;
        struct sum_squares_args squares = {&sum, tensor_f32(cache, CTX, D)};
        b->attend(&attend), b->rmsnorm_back(&norm), b->matmul(&product), b->sum_squares(&squares);
        mem_freeze(true);
        for (int i = 0; i < 200; i++) {
            for (int k = 0; k < 4; k++) hi[k] = 1 + i * 14 + k;
            b->attend(&attend), b->rmsnorm_back(&norm), b->matmul(&product),
                b->sum_squares(&squares);
        }
        mem_freeze(false);
        mem_free(cache);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The backend as a whole.

Test(backend_cpu, chooses_the_best_level_and_says_which) {
    struct err err;
    const struct backend *best = backend_cpu(NULL, &err);
    cr_assert_not_null(best);
    cr_assert_str_eq(best->name, "cpu");
    int l = LEVELS - 1;
    while (!level(l)) l--;
    struct text said = {0}, expected = {0};
    pool_start(2);
    best->report(&said);
    text_fmt(&expected, "cpu: %d threads, ", pool_threads());
    cr_assert(strstr(said.data, expected.data) == said.data && strstr(said.data, level_names[l]), "%s", said.data);
    text_clear(&said);
    pool_start(1);
    level(0)->report(&said);
    cr_assert_str_eq(said.data, "cpu: 1 thread, plain kernels");
    text_free(&said), text_free(&expected);
}

Test(backend_cpu, refuses_a_level_it_does_not_have) {
    struct err err = {0};
    cr_assert_null(backend_cpu("avx9", &err));
    cr_assert_not_null(strstr(err.text, "avx9"));
    cr_assert_not_null(strstr(err.text, "plain, avx2, avx512 or amx, or on ARM neon, dotprod or i8mm"));
    for (int l = 1; l < LEVELS; l++) {
        if (backend_cpu(level_names[l], &err)) continue;
        cr_assert_not_null(strstr(err.text, level_names[l]), "%s", err.text);
    }
}

Test(backend_cpu, every_level_has_every_member) {
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        // All members are pointers, so a missing one is a word of zeros.
        const char *bytes = (const char *)b;
        for (size_t at = 0; at < sizeof *b; at += sizeof(void *)) {
            void *member;
            memcpy(&member, bytes + at, sizeof member);
            cr_assert_not_null(member, "%s lacks member %zu", level_names[l], at / sizeof member);
        }
    }
}

Test(backend_cpu, memory_is_aligned_zeroed_and_refused_in_words) {
    struct err err = {0};
    const struct backend *b = level(0);
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        unsigned char *p = b->alloc(bytes, "a test", &err);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < bytes; i++) cr_assert_eq(p[i], 0);
        memset(p, 1, bytes);
        b->free(p);
    }
    b->free(NULL);
    cr_assert_null(b->alloc(SIZE_MAX - 10, "key cache", &err));
    cr_assert_not_null(strstr(err.text, "key cache"), "%s", err.text);
    cr_assert_null(b->alloc((size_t)PTRDIFF_MAX, "key cache", &err));
    unsigned char *device = b->alloc(8, "a test", &err), host[8] = "lehrlehr", back[8];
    b->upload(device, host, 8);
    b->copy(device + 2, device, 6); // overlapping
    b->download(back, device, 8);
    cr_assert_arr_eq(back, "lelehrle", 8);
    b->zero(device, 8);
    cr_assert_eq(device[7], 0);
    b->upload(NULL, NULL, 0), b->zero(NULL, 0);
    b->free(device);
}

Test(backend_cpu, refuses_weights_it_cannot_read) {
    int32_t numbers[64] = {0};
    for (int l = 0; l < LEVELS; l++) {
        const struct backend *b = level(l);
        if (!b) continue;
        struct err err = {0};
        struct tensor device;
        bool owned;
        struct tensor host = {numbers, DTYPE_I32, LAYOUT_ROWS, 1, 8, 8, 32};
        cr_assert_not(b->weight_load(&device, &host, &owned, &err));
        cr_assert_not_null(strstr(err.text, "I32"), "%s", err.text);
        host.dtype = DTYPE_Q8_0; // rows of 8 are no whole blocks
        cr_assert_not(b->weight_load(&device, &host, &owned, &err));
        cr_assert_not_null(strstr(err.text, "Q8_0"), "%s", err.text);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The harness must be able to fail: each broken backend below passes for right until the check that is meant for it.

static const struct backend *good_one(void) { return level(0); }

static void last_off_by_little(const struct matmul_args *a) {
    good_one()->matmul(a);
    ((float *)a->out.data)[a->out.cols - 1] *= 1.0001f;
}
static void leaves_the_last_column(const struct matmul_args *a) {
    struct matmul_args fewer = *a;
    fewer.out.cols--, fewer.w.rows--;
    good_one()->matmul(&fewer);
}
static void writes_before(const struct matmul_args *a) {
    good_one()->matmul(a);
    ((float *)a->out.data)[-1] = 0;
}
static void writes_between_rows(const struct matmul_args *a) {
    good_one()->matmul(a);
    if (a->out.rows > 1 && a->out.row_bytes > (size_t)a->out.cols * sizeof(float))
        ((float *)a->out.data)[a->out.cols] = 0;
}
static void changes_its_input(const struct matmul_args *a) {
    good_one()->matmul(a);
    ((float *)a->x.data)[0] += 1;
}
static void sees_its_batch(const struct matmul_args *a) {
    good_one()->matmul(a);
    if (a->x.rows == 5) ((float *)a->out.data)[0] = nextafterf(((float *)a->out.data)[0], 1e9f);
}
static void sees_the_threads(const struct matmul_args *a) {
    good_one()->matmul(a);
    if (pool_threads() == 3)
        ((float *)a->out.data)[0] = nextafterf(((float *)a->out.data)[0], 1e9f);
}
static void one_sum_for_all(const struct rmsnorm_back_args *a) {
    struct rmsnorm_back_args all = *a;
    all.segment = a->x.rows;
    good_one()->rmsnorm_back(&all);
}
static void forgets_to_add(const struct rmsnorm_back_args *a) {
    for (int64_t i = 0; i < a->dx.rows; i++)
        memset((char *)a->dx.data + (size_t)i * a->dx.row_bytes, 0,
               (size_t)a->dx.cols * sizeof(float));
    good_one()->rmsnorm_back(a);
}
static void gelu_for_silu(const struct glu_back_args *a) {
    struct glu_back_args other = *a;
    other.kind = GLU_GELU;
    good_one()->glu_back(&other);
}
static void swallows_nan(const struct glu_args *a) {
    good_one()->glu(a);
    for (int64_t i = 0; i < a->out.rows; i++) {
        float *out = (float *)((char *)a->out.data + (size_t)i * a->out.row_bytes);
        for (int64_t c = 0; c < a->out.cols; c++) out[c] = isnan(out[c]) ? 0 : out[c];
    }
}
static void reads_behind(const struct matmul_args *a) {
    good_one()->matmul(a);
    volatile const float *behind =
        (const float *)((const char *)a->x.data + (size_t)(a->x.rows - 1) * a->x.row_bytes) +
        a->x.cols;
    (void)*behind;
}

// True when some shape of the row fails the check, which is what is wanted here.
static bool fails(const struct walk *w, const char *name, const struct backend *b, bool padded,
                  const char *because) {
    const struct op_spec *spec = op_spec_find(name);
    cr_assert_not_null(spec);
    bool failed = false;
    for (int s = 0; s < spec->n_shapes; s++) {
        struct op_case c = {spec, s, DTYPE_F32, padded};
        struct err err = {0};
        double worst = 0;
        if (w->check(&c, b, &worst, &err)) continue;
        cr_assert_not_null(strstr(err.text, because), "failed, but with: %s", err.text);
        failed = true;
    }
    return failed;
}

#define BROKEN(member, with)                                                                       \
    struct backend broken = *good_one();                                                           \
    broken.member = with

Test(op_checks, see_one_wrong_number) {
    BROKEN(matmul, last_off_by_little);
    cr_assert(fails(&reference, "matmul", &broken, false, "allowed"));
    cr_assert(fails(&equal, "matmul", &broken, false, "allowed"));
}
Test(op_checks, see_an_output_that_was_not_written) {
    BROKEN(matmul, leaves_the_last_column);
    cr_assert(
        fails(&reference, "matmul", &broken, false, "expected")); // NaN, or what was there before
}
Test(op_checks, see_a_write_before_the_buffer) {
    BROKEN(matmul, writes_before);
    cr_assert(fails(&reference, "matmul", &broken, false, "outside"));
}
Test(op_checks, see_a_write_between_rows) {
    BROKEN(matmul, writes_between_rows);
    cr_assert(fails(&reference, "matmul", &broken, true, "outside"));
}
Test(op_checks, see_a_changed_input) {
    BROKEN(matmul, changes_its_input);
    cr_assert(fails(&reference, "matmul", &broken, false, "was changed"));
}
Test(op_checks, see_a_row_that_depends_on_its_batch) {
    BROKEN(matmul, sees_its_batch);
    cr_assert_not(fails(&reference, "matmul", &broken, false, "allowed"));
    cr_assert(fails(&rows, "matmul", &broken, false, "in parts of 5"));
}
Test(op_checks, see_a_result_that_depends_on_threads) {
    BROKEN(matmul, sees_the_threads);
    cr_assert_not(fails(&rows, "matmul", &broken, false, "in parts"));
    cr_assert(fails(&threads, "matmul", &broken, false, "with 3 threads"));
}
Test(op_checks, see_a_sum_across_segments) {
    BROKEN(rmsnorm_back, one_sum_for_all);
    cr_assert_not(fails(&gradient, "rmsnorm_back", &broken, false, "differences"));
    cr_assert(fails(&rows, "rmsnorm_back", &broken, false, "dweight"));
}
Test(op_checks, see_a_gradient_that_overwrites) {
    BROKEN(rmsnorm_back, forgets_to_add);
    cr_assert(fails(&gradient, "rmsnorm_back", &broken, false, "dx"));
}
Test(op_checks, see_the_gradient_of_another_function) {
    BROKEN(glu_back, gelu_for_silu);
    cr_assert(fails(&gradient, "glu_back", &broken, false, "differences"));
}
Test(op_checks, see_a_swallowed_nan) {
    BROKEN(glu, swallows_nan);
    cr_assert_not(fails(&reference, "glu", &broken, false, "expected"));
    cr_assert(fails(&nans, "glu", &broken, false, "did not come out"));
}
Test(op_checks, see_a_read_behind_the_buffer, .signal = SIGSEGV) {
    BROKEN(matmul, reads_behind);
    fails(&reference, "matmul", &broken, false, "never");
}
