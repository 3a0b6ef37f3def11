// criterion.h: the few words of Criterion that the suites of kernels use, for machines that have no Criterion: `make
// check-arm` and `make test-gpu` put this folder before the system's. Tests run one after the other, each in a process of its own,
// which the first failed assertion ends; tests that expect a signal or the program's end are left out, and said to be.
#ifndef LEHR_TESTS_SMALL_CRITERION_H
#define LEHR_TESTS_SMALL_CRITERION_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

struct small_test {
    const char *suite, *name;
    void (*run)(void);
    int signal, exit_code, timeout; // no test is stopped for its time
    struct small_test *next;
};
void small_add(struct small_test *test);
// Says what failed, with `format` behind it; final: ends the program.
void small_failed(bool final, const char *file, int line, const char *what, const char *format, ...);
void small_log(const char *format, ...);

#define Test(in, called, ...)                                                                      \
    static void small_##in##_##called(void);                                                       \
    __attribute__((constructor)) static void small_add_##in##_##called(void) {                     \
        static struct small_test test = {                                                          \
            .suite = #in, .name = #called, .run = small_##in##_##called, __VA_ARGS__};             \
        small_add(&test);                                                                          \
    }                                                                                              \
    static void small_##in##_##called(void)
#define TestSuite(name, ...) typedef int small_suite_##name // time is not watched here
#define SMALL_CHECK(final, good, ...)                                                              \
    do {                                                                                           \
        if (!(good)) small_failed(final, __FILE__, __LINE__, #good, "" __VA_ARGS__);               \
    } while (0)

#define cr_assert(good, ...) SMALL_CHECK(true, good, __VA_ARGS__)
#define cr_assert_not(bad, ...) SMALL_CHECK(true, !(bad), __VA_ARGS__)
#define cr_assert_null(p, ...) SMALL_CHECK(true, (p) == NULL, __VA_ARGS__)
#define cr_assert_not_null(p, ...) SMALL_CHECK(true, (p) != NULL, __VA_ARGS__)
#define cr_assert_eq(a, b, ...) SMALL_CHECK(true, (a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...) SMALL_CHECK(true, (a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...) SMALL_CHECK(true, (a) < (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...) SMALL_CHECK(true, (a) > (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...) SMALL_CHECK(true, (a) <= (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...) SMALL_CHECK(true, (a) >= (b), __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) SMALL_CHECK(true, strcmp(a, b) == 0, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) SMALL_CHECK(true, strcmp(a, b) != 0, __VA_ARGS__)
#define cr_assert_float_eq(a, b, off, ...) SMALL_CHECK(true, fabs((a) - (b)) <= (off), __VA_ARGS__)
#define cr_assert_arr_eq(a, b, bytes, ...) SMALL_CHECK(true, memcmp(a, b, bytes) == 0, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, bytes, ...) SMALL_CHECK(true, memcmp(a, b, bytes) != 0, __VA_ARGS__)
#define cr_expect(good, ...) SMALL_CHECK(false, good, __VA_ARGS__)
#define cr_expect_not(bad, ...) SMALL_CHECK(false, !(bad), __VA_ARGS__)
#define cr_expect_null(p, ...) SMALL_CHECK(false, (p) == NULL, __VA_ARGS__)
#define cr_expect_not_null(p, ...) SMALL_CHECK(false, (p) != NULL, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) SMALL_CHECK(false, (a) == (b), __VA_ARGS__)
#define cr_expect_neq(a, b, ...) SMALL_CHECK(false, (a) != (b), __VA_ARGS__)
#define cr_expect_lt(a, b, ...) SMALL_CHECK(false, (a) < (b), __VA_ARGS__)
#define cr_expect_gt(a, b, ...) SMALL_CHECK(false, (a) > (b), __VA_ARGS__)
#define cr_expect_leq(a, b, ...) SMALL_CHECK(false, (a) <= (b), __VA_ARGS__)
#define cr_expect_geq(a, b, ...) SMALL_CHECK(false, (a) >= (b), __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) SMALL_CHECK(false, strcmp(a, b) == 0, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) SMALL_CHECK(false, strcmp(a, b) != 0, __VA_ARGS__)
#define cr_expect_float_eq(a, b, off, ...) SMALL_CHECK(false, fabs((a) - (b)) <= (off), __VA_ARGS__)
#define cr_expect_arr_eq(a, b, bytes, ...) SMALL_CHECK(false, memcmp(a, b, bytes) == 0, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, bytes, ...) SMALL_CHECK(false, memcmp(a, b, bytes) != 0, __VA_ARGS__)
#define cr_skip_test(...) return small_log(__VA_ARGS__)
#define cr_log_error(...) small_log(__VA_ARGS__)
#define cr_log_info(...) small_log(__VA_ARGS__)

#endif
