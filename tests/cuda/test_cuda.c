// test_cuda.c: the backend of cuda/ through the table of op_cases.c. The same tests run on a GPU (make test-gpu) and, without one,
// on the processor in its place (make shim), where every order of threads is drawn from LEHR_SEED (1).
//
//   LEHR_OPS="matmul rope"   only rows of the table with these names, or that begin with them and "_" or " "
#include "tests/cuda/place.h"
#include "tests/op_cases.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const struct backend *cuda(void) { return place_gpu(); }

static bool named(const struct op_spec *spec) {
    const char *names = getenv("LEHR_OPS");
    if (!names) return true;
    for (const char *at = names; *at;) {
        const size_t n = strcspn(at, " ,");
        if (n && strncmp(spec->name, at, n) == 0 && (spec->name[n] == 0 || spec->name[n] == '_' || spec->name[n] == ' ')) return true;
        at += n + (at[n] != 0);
    }
    return false;
}

struct walk {
    bool (*check)(const struct op_case *c, const struct backend *b, double *worst, struct err *err);
    bool (*wanted)(const struct op_spec *spec);
    bool padded_too;
};

static void walk(const struct walk *w) {
    const struct backend *b = cuda();
    double worst = 0;
    char worst_case[160] = "none";
    int cases = 0, failed = 0;
    for (int i = 0; i < op_spec_count; i++) {
        const struct op_spec *spec = &op_specs[i];
        if (!w->wanted(spec) || !named(spec)) continue;
        const double from = time_now();
        int here = 0;
        for (int d = 0; d < DTYPE_COUNT; d++)
            for (int s = 0; s < spec->n_shapes && spec->dtypes & 1u << d; s++)
                for (int padded = 0; padded <= w->padded_too; padded++) {
                    struct op_case c = {spec, s, (enum dtype)d, padded};
                    struct err err;
                    const double before = worst;
                    cases++, here++;
                    const bool good = w->check(&c, b, &worst, &err);
                    if (worst > before) op_case_name(&c, worst_case, sizeof worst_case);
                    if (!good && failed++ < 8) cr_log_error("%s", err.text);
                }
        if (getenv("LEHR_SHOW")) cr_log_info("%-20s %4d cases %6.2f s", spec->name, here, time_now() - from);
    }
    cr_assert(failed == 0, "%d of %d cases failed", failed, cases);
    cr_assert(cases > 0 || getenv("LEHR_OPS"));
    cr_log_info("%d cases, worst error %.2f of what is allowed (%s)", cases, worst, worst_case);
}

#ifdef CUDA_ON_CPU
// Products in bf16 once more, as GPUs before and after Hopper make them.
static bool is_rounded_product(const struct op_spec *spec) {
    return spec->rounds && (spec->op == OP_MATMUL || spec->op == OP_MATMUL_DX || spec->op == OP_MATMUL_DW || spec->op == OP_MATMUL_EXPERTS ||
                            spec->op == OP_MATMUL_EXPERTS_DX || spec->op == OP_MATMUL_EXPERTS_DW || spec->op == OP_HEAD_LOSS);
}
static bool rounded_with_reference(const struct op_spec *spec) { return is_rounded_product(spec) && spec->reference; }
static bool rounded_with_rows(const struct op_spec *spec) { return is_rounded_product(spec) && spec->unit != 0; }
#endif
static bool has_reference(const struct op_spec *spec) { return spec->reference; }
static bool has_gradient(const struct op_spec *spec) { return spec->n_pairs > 0; }
static bool has_rows(const struct op_spec *spec) { return spec->unit != 0; }
static bool by_single_rows(const struct op_spec *spec) { return spec->unit == 1; }
static bool check_rows(const struct op_case *c, const struct backend *b, double *worst, struct err *err) {
#ifdef CUDA_ON_CPU
    op_check_quick = true;
#endif
    return (void)worst, op_check_rows(c, b, err);
}
static bool check_nan(const struct op_case *c, const struct backend *b, double *worst, struct err *err) {
    return (void)worst, op_check_nan(c, b, err);
}

TestSuite(cuda, .timeout = 600);
Test(cuda, follows_the_formulas_in_double) { walk(&(struct walk){op_check_reference, has_reference, true}); }
Test(cuda, gradients_are_the_slopes_of_the_formulas) { walk(&(struct walk){op_check_gradient, has_gradient, false}); }
Test(cuda, rows_do_not_depend_on_their_batch) { walk(&(struct walk){check_rows, has_rows, false}); }
Test(cuda, lets_a_nan_out_of_its_row_and_no_other) { walk(&(struct walk){check_nan, by_single_rows, false}); }
#ifdef CUDA_ON_CPU
Test(cuda, follows_the_formulas_without_wgmma) {
    on_cpu_wgmma(false);
    walk(&(struct walk){op_check_reference, rounded_with_reference, true});
}
Test(cuda, rows_do_not_depend_on_their_batch_without_wgmma) {
    on_cpu_wgmma(false);
    walk(&(struct walk){check_rows, rounded_with_rows, false});
}
#endif

Test(cuda, has_every_member) {
    const char *bytes = (const char *)cuda();
    int missing = 0;
    for (size_t at = 0; at < sizeof(struct backend); at += sizeof(void *)) {
        void *member;
        memcpy(&member, bytes + at, sizeof member);
        if (at == offsetof(struct backend, reads_host)) continue; // false
        if (!member) cr_log_error("member %zu is missing", at / sizeof(void *)), missing++;
    }
    cr_assert(missing == 0);
}

Test(cuda, supports_what_the_table_runs) {
    unsigned run[OP_COUNT] = {0};
    for (int i = 0; i < op_spec_count; i++) run[op_specs[i].op] |= op_specs[i].dtypes;
    run[OP_PROJECT] |= run[OP_MATMUL], run[OP_FEED_FORWARD] |= run[OP_MATMUL];
    for (int op = 0; op < OP_COUNT; op++)
        for (int d = 0; d < DTYPE_COUNT; d++)
            cr_expect_eq(cuda()->supports((enum op)op, (enum dtype)d), (run[op] >> d & 1) != 0, "%s %s", op_name((enum op)op), dtype_row((enum dtype)d)->name);
}

// A pass with a key is done, then kept, then started again on what lies in memory by then, until it is forgotten.
Test(cuda, a_kept_pass_is_started_again) {
    struct err err;
    const struct backend *b = cuda();
    float x[4] = {1, 2, 3, 4}, found[4];
    float *in = b->alloc(sizeof x, "numbers", &err), *out = b->alloc(sizeof x, "numbers", &err);
    struct add_args add = {tensor_f32(out, 1, 4), {0}, tensor_f32(in, 1, 4), 2};
    for (int pass = 0; pass < 6; pass++) {
        for (int i = 0; i < 4; i++) x[i] += 1;
        b->upload(in, x, sizeof x);
        if (pass == 4) b->forget();
        const bool again = b->begin(42);
        cr_assert_eq(again, pass == 2 || pass == 3, "pass %d", pass);
        if (!again) b->add(&add), b->end();
        b->download(found, out, sizeof found);
        for (int i = 0; i < 4; i++) cr_assert_eq(found[i], 2 * x[i], "pass %d", pass);
    }
    b->forget();
    b->free(in), b->free(out);
}
