// test_core.c: errors, memory, files, hash, random numbers, thread pool, dtypes.
//
// The rest of core is in test_json.c, test_opt.c and test_plot.c. Where a promise is "for every byte" or "for every
// value" the test walks all of them; where it is statistical the bound is derived beside it and the seed is fixed.
#include "core/core.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------------
// Errors.

Test(err, set_returns_false_and_keeps_the_sentence) {
    struct err err;
    cr_assert_not(err_set(&err, "expected %d, found %s", 3, "four"));
    cr_assert_str_eq(err.text, "expected 3, found four");
    cr_assert_not(err_set(NULL, "nobody listens"));
    cr_assert_not(err_in(NULL, "nowhere"));
}

Test(err, in_puts_the_place_in_front) {
    struct err err;
    err_set(&err, "no space left");
    cr_assert_not(err_in(&err, "writing %s", "a.gguf"));
    cr_assert_str_eq(err.text, "writing a.gguf: no space left");
}

Test(err, long_sentences_and_places_are_cut_not_overrun) {
    static char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    for (size_t place = 0; place < 1000; place += 37) {
        struct {
            struct err err;
            char guard[16];
        } box;
        memset(box.guard, 77, sizeof box.guard);
        err_set(&box.err, "%s", longer);
        cr_assert_eq(strlen(box.err.text), sizeof box.err.text - 1);
        err_in(&box.err, "%.*s", (int)place, longer);
        cr_assert(strlen(box.err.text) < sizeof box.err.text, "place of %zu", place);
        for (size_t i = 0; i < sizeof box.guard; i++)
            cr_assert_eq(box.guard[i], 77, "place of %zu", place);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Sizes and memory.

Test(mem, sizes_that_do_not_fit_are_refused) {
    size_t out;
    cr_assert(size_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    cr_assert(size_mul(0, SIZE_MAX, &out) && out == 0);
    cr_assert_not(size_mul(SIZE_MAX / 2 + 1, 2, &out));
    cr_assert_not(size_mul((size_t)1 << 32, (size_t)1 << 32, &out));
    cr_assert(size_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    cr_assert_not(size_add(SIZE_MAX, 1, &out));
}

Test(mem, allocations_are_zeroed_and_never_null) {
    for (size_t n = 0; n < 3000; n += 99) {
        unsigned char *p = mem_alloc(n, "test");
        cr_assert_not_null(p);
        for (size_t i = 0; i < n; i++) cr_assert_eq(p[i], 0);
        mem_free(p);
    }
    mem_free(NULL);
}

Test(mem, grow_keeps_zeroes_and_at_least_doubles) {
    void *p = NULL;
    size_t cap = 0;
    for (size_t need = 1; need < 5000; need += 61) {
        size_t before = cap;
        mem_grow(&p, &cap, need, sizeof(int), "test");
        cr_assert_geq(cap, need);
        cr_assert(cap == before || cap >= 2 * before);
        int *list = p;
        for (size_t i = before; i < cap; i++) cr_assert_eq(list[i], 0, "entry %zu of %zu", i, cap);
        for (size_t i = before; i < cap; i++) list[i] = (int)i + 1;
        for (size_t i = 0; i < cap; i++) cr_assert_eq(list[i], (int)i + 1);
    }
    mem_free(p);
}

Test(mem, an_array_too_large_to_count_ends_the_program, .exit_code = 1) {
    mem_array(SIZE_MAX / 2, 3, "test");
}

Test(mem, growth_too_large_to_count_ends_the_program, .exit_code = 1) {
    void *p = NULL;
    size_t cap = 0;
    mem_grow(&p, &cap, SIZE_MAX / 2, 8, "test");
}

#ifndef __SANITIZE_ADDRESS__ // it has its own opinion of such sizes
Test(mem, more_than_the_machine_has_ends_the_program, .exit_code = 1) {
    mem_alloc(SIZE_MAX / 4, "test");
}
#endif

Test(mem, available_and_peak_are_known_here) {
    size_t before = mem_peak_bytes();
    cr_assert_gt(before, 100000);
    cr_assert_gt(mem_available_bytes(), 1000000);
    size_t n = 64 << 20;
    char *p = mem_alloc(n, "test");
    for (size_t i = 0; i < n; i += 4096) p[i] = 1;
    cr_assert_geq(mem_peak_bytes(), n);
    mem_free(p);
}

#ifdef LEHR_GUARD
Test(mem, the_nth_allocation_fails_on_request, .exit_code = 1) {
    mem_fail_at(3);
    mem_free(mem_alloc(1, "first"));
    mem_free(mem_alloc(1, "second"));
    mem_free(mem_alloc(1, "third"));
    _exit(0); // not reached: the third ended the program
}

Test(mem, allocating_while_frozen_aborts, .signal = SIGABRT) {
    mem_freeze(true);
    mem_alloc(1, "test");
}

Test(mem, freezing_nests) {
    mem_freeze(true);
    mem_freeze(true);
    mem_freeze(false);
    mem_freeze(false);
    mem_free(mem_alloc(1, "test"));
}

Test(mem, a_text_may_grow_only_unfrozen, .signal = SIGABRT) {
    struct text t = {0};
    text_str(&t, "a");
    mem_freeze(true);
    text_str(&t, "b"); // fits
    if (strcmp(t.data, "ab") != 0) _exit(9);
    for (int i = 0; i < 1000; i++) text_str(&t, "more");
}
#endif

Test(arena, takes_are_aligned_zeroed_and_apart) {
    struct arena a;
    size_t sizes[] = {1, 64, 65, 0, 1000, 63}, plan = 0;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) plan += arena_round(sizes[i]);
    arena_open(&a, plan, "test");
    unsigned char *p[COUNT_OF(sizes)];
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        p[i] = arena_take(&a, sizes[i]);
        cr_assert_eq((uintptr_t)p[i] % 64, 0);
        for (size_t k = 0; k < sizes[i]; k++) cr_assert_eq(p[i][k], 0);
        memset(p[i], (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t k = 0; k < sizes[i]; k++) cr_assert_eq(p[i][k], i + 1);
    }
    cr_assert_eq(a.used, a.size);
    arena_reset(&a);
    cr_assert_eq(arena_take(&a, 1), (void *)p[0]);
    arena_close(&a);
    arena_close(&a);
}

Test(arena, a_plan_that_was_too_small_is_our_own_mistake, .signal = SIGABRT) {
    struct arena a;
    arena_open(&a, 128, "test");
    arena_take(&a, 64);
    arena_take(&a, 65);
}

Test(text, grows_and_stays_terminated) {
    struct text t = {0};
    text_add(&t, NULL, 0);
    cr_assert_str_eq(t.data, "");
    text_add(&t, "a\0b", 3);
    cr_assert_eq(t.len, 3);
    cr_assert_eq(memcmp(t.data, "a\0b", 4), 0);
    text_clear(&t);
    for (int i = 0; i < 1000; i++) text_fmt(&t, "%d,", i);
    cr_assert_eq(t.len, 10 * 2 + 90 * 3 + 900 * 4);
    cr_assert_eq(strlen(t.data), t.len);
    cr_assert_eq(strncmp(t.data, "0,1,2,", 6), 0);
    text_fmt(&t, "%5000s", "x");
    cr_assert_eq(t.data[t.len - 1], 'x');
    cr_assert_eq(strlen(t.data), t.len);
    text_free(&t);
    cr_assert_null(t.data);
    text_free(&t);
    text_clear(&t);
}

// ---------------------------------------------------------------------------------------------------------------
// Files.

struct folder {
    char path[64];
};

static struct folder folder_open(void) {
    struct folder f = {"/tmp/lehr-core-XXXXXX"};
    cr_assert_not_null(mkdtemp(f.path));
    return f;
}

static void folder_close(const struct folder *f) {
    struct file_list list;
    if (file_list_open(&list, f->path, NULL)) {
        for (size_t i = 0; i < list.count; i++) {
            char path[400];
            snprintf(path, sizeof path, "%s/%s", f->path, list.names[i]);
            if (remove(path)) {
            }
        }
        file_list_free(&list);
    }
    rmdir(f->path);
}

static const char *in(const struct folder *f, const char *name, char path[400]) {
    snprintf(path, 400, "%s/%s", f->path, name);
    return path;
}

static size_t names_in(const struct folder *f) {
    struct file_list list;
    cr_assert(file_list_open(&list, f->path, NULL));
    size_t n = list.count;
    file_list_free(&list);
    return n;
}

static void put_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static bool file_holds(const char *path, const void *bytes, size_t n) {
    struct text t = {0};
    bool same =
        file_read_all(path, 1 << 28, &t, NULL) && t.len == n && memcmp(t.data, bytes, n) == 0;
    text_free(&t);
    return same;
}

Test(file, a_map_is_the_file) {
    struct folder f = folder_open();
    char path[400];
    static char bytes[100000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7);
    put_file(in(&f, "a", path), bytes, sizeof bytes);
    struct file_map m;
    struct err err;
    cr_assert(file_map_open(&m, path, &err), "%s", err.text);
    cr_assert_eq(m.size, sizeof bytes);
    cr_assert_eq(memcmp(m.data, bytes, m.size), 0);
    cr_assert_str_eq(m.path, path);
    file_map_forget(m.data, m.size); // what is forgotten comes back when it is read
    cr_assert_eq(memcmp(m.data, bytes, m.size), 0);
    file_map_close(&m);
    cr_assert_null(m.data);
    put_file(in(&f, "empty", path), "", 0);
    cr_assert(file_map_open(&m, path, &err), "%s", err.text);
    cr_assert_eq(m.size, 0);
    file_map_close(&m);
    folder_close(&f);
}

static void expect_no_map(const char *path, const char *word) {
    struct file_map m;
    struct err err = {""};
    cr_assert_not(file_map_open(&m, path, &err), "%s was mapped", path);
    cr_assert(strstr(err.text, path) && strstr(err.text, word), "expected \"%s\" in: %s", word,
              err.text);
    file_map_close(&m); // harmless after a failure
}

// A FIFO without a writer would block a careless open for ever: the time limit is part of the test.
Test(file, what_cannot_be_mapped_is_refused_by_name, .timeout = 5) {
    struct folder f = folder_open();
    char path[400];
    expect_no_map(in(&f, "absent", path), "No such file");
    expect_no_map(f.path, "folder");
    cr_assert_eq(mkfifo(in(&f, "fifo", path), 0600), 0);
    expect_no_map(path, "pipe");
    expect_no_map("/dev/zero", "device");
    folder_close(&f);
}

Test(file, a_file_that_shrinks_while_mapped_is_one_sentence, .exit_code = 1) {
    struct folder f = folder_open();
    char path[400];
    static char bytes[8192] = {1};
    put_file(in(&f, "a", path), bytes, sizeof bytes);
    struct file_map m;
    cr_assert(file_map_open(&m, path, NULL));
    file_guard_sigbus();
    cr_assert_eq(truncate(path, 0), 0);
    folder_close(&f);
    volatile unsigned char last = m.data[5000];
    _exit(last == 0 ? 7 : 8); // not reached
}

Test(file, read_all_keeps_its_limit) {
    struct folder f = folder_open();
    char path[400];
    static char bytes[70000];
    memset(bytes, 'x', sizeof bytes);
    put_file(in(&f, "a", path), bytes, sizeof bytes);
    struct text t = {0};
    struct err err = {""};
    cr_assert(file_read_all(path, sizeof bytes, &t, &err), "%s", err.text);
    cr_assert_eq(t.len, sizeof bytes);
    cr_assert_eq(t.data[t.len], 0);
    text_free(&t);
    cr_assert_not(file_read_all(path, sizeof bytes - 1, &t, &err));
    cr_assert(strstr(err.text, path) && strstr(err.text, "69999"), "%s", err.text);
    text_free(&t);
    cr_assert_not(file_read_all(in(&f, "absent", path), 10, &t, &err));
    cr_assert_not(file_read_all(f.path, 10, &t, &err));
    text_free(&t);
    folder_close(&f);
}

Test(file, read_all_without_end_stops_at_the_limit, .timeout = 5) {
    struct text t = {0};
    struct err err;
    cr_assert_not(file_read_all("/dev/zero", 1 << 20, &t, &err));
    cr_assert_lt(t.cap, 8 << 20);
    text_free(&t);
}

Test(file, dash_is_standard_input) {
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(write(ends[1], "from a pipe\0!", 13), 13);
    close(ends[1]);
    dup2(ends[0], 0);
    struct text t = {0};
    cr_assert(file_read_all("-", 100, &t, NULL));
    cr_assert_eq(t.len, 13);
    cr_assert_eq(memcmp(t.data, "from a pipe\0!", 13), 0);
    text_free(&t);
}

Test(file, nothing_shows_before_commit_and_all_after) {
    struct folder f = folder_open();
    char path[400];
    struct err err = {""};
    put_file(in(&f, "a", path), "old", 3);
    struct file_out *out = file_out_open(path, &err);
    cr_assert_not_null(out, "%s", err.text);
    static char bytes[300000];
    size_t at = 0;
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 31 >> 3);
    for (size_t piece = 1; at < sizeof bytes;
         piece = piece * 3 + 1) { // across the buffer in all ways
        size_t n = piece % 100000 < sizeof bytes - at ? piece % 100000 : sizeof bytes - at;
        file_out_write(out, bytes + at, n);
        at += n;
        cr_assert_eq(file_out_size(out), at);
    }
    cr_assert(file_holds(path, "old", 3));
    cr_assert(file_out_commit(out, &err), "%s", err.text);
    cr_assert(file_holds(path, bytes, sizeof bytes));
    cr_assert_eq(names_in(&f), 1);
    folder_close(&f);
}

Test(file, abort_leaves_the_old_file_and_no_other) {
    struct folder f = folder_open();
    char path[400];
    put_file(in(&f, "a", path), "old", 3);
    struct file_out *out = file_out_open(path, NULL);
    file_out_write(out, "new bytes", 9);
    file_out_abort(out);
    file_out_abort(NULL);
    cr_assert(file_holds(path, "old", 3));
    cr_assert_eq(names_in(&f), 1);
    folder_close(&f);
}

// The disk is full at byte 1, 2, ... : each time the old file stands, the temporary is gone and the sentence says so.
Test(file, a_full_disk_at_any_byte_leaves_the_old_file) {
    struct folder f = folder_open();
    char path[400], bytes[40];
    put_file(in(&f, "a", path), "old", 3);
    memset(bytes, 'n', sizeof bytes);
    for (uint64_t n = 1; n <= sizeof bytes + 1; n++) {
        struct err err = {""};
        file_out_fail_at(n);
        struct file_out *out = file_out_open(path, &err);
        for (size_t at = 0; at < sizeof bytes; at += 8) file_out_write(out, bytes + at, 8);
        bool fine = file_out_commit(out, &err);
        file_out_fail_at(0);
        cr_assert_eq(names_in(&f), 1, "a temporary is left after byte %d", (int)n);
        cr_assert_eq(fine, n > sizeof bytes, "byte %d", (int)n);
        if (fine) {
            cr_assert(file_holds(path, bytes, sizeof bytes));
        } else {
            cr_assert(file_holds(path, "old", 3), "byte %d", (int)n);
            cr_assert(strstr(err.text, path) && strstr(err.text, "space"), "%s", err.text);
        }
    }
    folder_close(&f);
}

Test(file, a_target_that_cannot_be_is_told) {
    struct folder f = folder_open();
    char path[400];
    struct err err = {""};
    cr_assert_null(file_out_open(in(&f, "no/such/folder", path), &err));
    cr_assert(strstr(err.text, path), "%s", err.text);
    cr_assert_eq(mkdir(in(&f, "taken", path), 0700), 0);
    struct file_out *out = file_out_open(path, &err); // becomes known at the rename at the latest
    if (out) {
        file_out_write(out, "x", 1);
        cr_assert_not(file_out_commit(out, &err));
    }
    cr_assert(strstr(err.text, path), "%s", err.text);
    cr_assert_eq(names_in(&f), 1);
    folder_close(&f);
}

Test(file, folders_are_made_with_their_parents) {
    struct folder f = folder_open();
    char path[400];
    struct err err = {""};
    cr_assert(file_make_folder(in(&f, "a/b//c/", path), &err), "%s", err.text);
    cr_assert(file_exists(path));
    cr_assert(file_make_folder(path, &err), "%s", err.text);
    put_file(in(&f, "file", path), "x", 1);
    cr_assert_not(file_make_folder(path, &err));
    cr_assert_not(file_make_folder(in(&f, "file/below", path), &err));
    cr_assert_not(file_make_folder("", &err));
    rmdir(in(&f, "a/b/c", path));
    rmdir(in(&f, "a/b", path));
    folder_close(&f);
}

Test(file, lists_are_sorted_and_complete) {
    struct folder f = folder_open();
    char path[400];
    const char *names[] = {"b", "a", ".hidden", "B", "a10", "a9"};
    const char *sorted[] = {".hidden", "B", "a", "a10", "a9", "b"};
    for (size_t i = 0; i < COUNT_OF(names); i++) put_file(in(&f, names[i], path), "", 0);
    struct file_list list;
    struct err err;
    cr_assert(file_list_open(&list, f.path, &err), "%s", err.text);
    cr_assert_eq(list.count, COUNT_OF(sorted));
    for (size_t i = 0; i < list.count; i++) cr_assert_str_eq(list.names[i], sorted[i]);
    file_list_free(&list);
    file_list_free(&list);
    cr_assert_not(file_list_open(&list, in(&f, "absent", path), &err));
    folder_close(&f);
}

Test(file, free_space_is_known_where_the_path_is) {
    cr_assert_neq(file_free_bytes("/tmp"), UINT64_MAX);
    cr_assert_eq(file_free_bytes("/no/such/place"), UINT64_MAX);
}

// ---------------------------------------------------------------------------------------------------------------
// Hash.

Test(hash, every_bit_length_and_seed_matters) {
    unsigned char bytes[100] = {0};
    uint64_t plain = hash_bytes(0, bytes, sizeof bytes), seen[65];
    for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        cr_assert_neq(hash_bytes(0, bytes, sizeof bytes), plain, "bit %zu", bit);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (size_t n = 0; n < COUNT_OF(seen); n++) {
        seen[n] = hash_bytes(0, bytes, n);
        for (size_t k = 0; k < n; k++) cr_assert_neq(seen[k], seen[n], "%zu and %zu zeros", k, n);
    }
    cr_assert_neq(hash_bytes(1, bytes, 5), hash_bytes(2, bytes, 5));
    cr_assert_eq(hash_bytes(7, NULL, 0), hash_bytes(7, bytes, 0));
}

Test(hash, does_not_depend_on_alignment) {
    unsigned char bytes[80];
    for (size_t at = 0; at < 16; at++) {
        for (size_t i = 0; i < 64; i++) bytes[at + i] = (unsigned char)(i * 37);
        static uint64_t first;
        uint64_t h = hash_bytes(3, bytes + at, 64);
        if (at == 0) first = h;
        cr_assert_eq(h, first);
    }
}

// Seals of files written by earlier versions must stay valid.
Test(hash, values_stay_what_they_were) {
    cr_assert_eq(hash_bytes(0, "", 0), 0x22997349e25253bbull);
    cr_assert_eq(hash_bytes(0, "lehr", 4), 0xbcf64bb2d5ba03cfull);
    cr_assert_eq(hash_bytes(42, "the quick brown fox jumps", 25), 0x05f14ce41f0bd2fbull);
}

// ---------------------------------------------------------------------------------------------------------------
// Random numbers.

// Known answers published with Random123 (kat_vectors, philox4x32 10): counter, key, output.
Test(rng, philox_gives_the_published_answers) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        uint64_t counter = (uint64_t)known[i].counter[1] << 32 | known[i].counter[0];
        uint64_t stream = (uint64_t)known[i].counter[3] << 32 | known[i].counter[2];
        uint64_t seed = (uint64_t)known[i].key[1] << 32 | known[i].key[0];
        uint32_t out[4];
        rng_block(seed, stream, counter, out);
        for (int k = 0; k < 4; k++)
            cr_assert_eq(out[k], known[i].out[k], "vector %zu, word %d", i, k);
    }
}

// Mean and variance of n draws. The bounds below are 5 standard errors: a right generator fails once in a million.
static void moments(double (*draw)(uint64_t, uint64_t, uint64_t), int n, double *mean,
                    double *variance) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        double x = draw(11, 5, (uint64_t)i);
        sum += x;
        squares += x * x;
    }
    *mean = sum / n;
    *variance = squares / n - *mean * *mean;
}

Test(rng, distributions_have_their_mean_and_variance) {
    enum { N = 200000 };
    double mean, variance, root = sqrt(N);
    moments(rng_uniform, N, &mean, &variance);
    cr_assert_float_eq(mean, 0.5, 5 * sqrt(1.0 / 12) / root);
    cr_assert_float_eq(variance, 1.0 / 12, 5 * sqrt(1.0 / 180) / root);
    moments(rng_normal, N, &mean, &variance);
    cr_assert_float_eq(mean, 0, 5 / root);
    cr_assert_float_eq(variance, 1, 5 * sqrt(2) / root);
    moments(rng_gumbel, N, &mean,
            &variance); // mean Euler's constant, variance pi^2/6, kurtosis 5.4
    cr_assert_float_eq(mean, 0.5772156649, 5 * sqrt(1.6449340668) / root);
    cr_assert_float_eq(variance, 1.6449340668, 5 * 1.6449340668 * sqrt(4.4) / root);
}

Test(rng, uniform_is_never_0_or_1) {
    for (uint64_t i = 0; i < 100000; i++) {
        double u = rng_uniform(i, 1, 2);
        cr_assert(u > 0 && u < 1);
        cr_assert(isfinite(rng_gumbel(i, 3, 4)) && isfinite(rng_normal(i, 5, 6)));
    }
}

Test(rng, below_is_in_range_and_even) {
    static const uint64_t limits[] = {1, 2, 3, 7, 1000, (uint64_t)1 << 63, UINT64_MAX};
    for (size_t k = 0; k < COUNT_OF(limits); k++) {
        for (uint64_t i = 0; i < 2000; i++) cr_assert_lt(rng_below(1, k, i, limits[k]), limits[k]);
    }
    long count[10] = {0};
    enum { N = 100000 };
    for (uint64_t i = 0; i < N; i++) count[rng_below(2, 0, i, 10)]++;
    double chi2 = 0;
    for (int i = 0; i < 10; i++)
        chi2 += (double)(count[i] - N / 10) * (double)(count[i] - N / 10) / (N / 10.0);
    cr_assert_lt(chi2, 42.0, "chi-squared %g with 9 degrees: one run in 300000 by chance", chi2);
}

Test(rng, permute_is_a_bijection) {
    static bool hit[5000];
    for (uint64_t n = 1; n <= 5000; n = n < 70 ? n + 1 : n * 5 / 3) {
        for (uint64_t stream = 0; stream < 3; stream++) {
            memset(hit, 0, sizeof hit);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t to = rng_permute(9, stream, i, n);
                cr_assert_lt(to, n);
                cr_assert_not(hit[to], "n %d, stream %d: two indices go to %d", (int)n, (int)stream,
                              (int)to);
                hit[to] = true;
            }
        }
    }
    uint64_t huge = ((uint64_t)1 << 62) + 12345;
    for (uint64_t i = 0; i < 100; i++) cr_assert_lt(rng_permute(1, 2, huge - 1 - i, huge), huge);
}

Test(rng, permutations_differ_by_seed_and_stream_and_are_even) {
    enum { N = 1000 };
    int same_stream = 0, same_seed = 0, fixed = 0;
    for (uint64_t i = 0; i < N; i++) {
        uint64_t to = rng_permute(1, 1, i, N);
        same_stream += to == rng_permute(1, 2, i, N);
        same_seed += to == rng_permute(2, 1, i, N);
        fixed += to == i;
    }
    // Each count is about Poisson with mean 1: above 10 happens once in 10^8.
    cr_assert(same_stream <= 10 && same_seed <= 10 && fixed <= 10, "%d %d %d", same_stream,
              same_seed, fixed);
    long count[10] = {0};
    for (uint64_t stream = 0; stream < 50000; stream++)
        count[rng_permute(3, stream, 2, N) * 10 / N]++;
    double chi2 = 0;
    for (int i = 0; i < 10; i++)
        chi2 += (double)(count[i] - 5000) * (double)(count[i] - 5000) / 5000;
    cr_assert_lt(chi2, 42.0, "chi-squared %g with 9 degrees: one run in 300000 by chance", chi2);
}

// ---------------------------------------------------------------------------------------------------------------
// Thread pool.

struct visits {
    int64_t n, grain;
    int *count;  // per index
    double *sum; // per piece
    bool wrong;
};

static void visit(void *arg, int64_t lo, int64_t hi, int thread) {
    struct visits *v = arg;
    if (lo % v->grain != 0 || hi > v->n || (hi - lo != v->grain && hi != v->n)) v->wrong = true;
    if (thread < 0 || thread >= pool_threads()) v->wrong = true;
    float sum = 0; // f32, so that any other order or cut would show
    for (int64_t i = lo; i < hi; i++) {
        v->count[i]++;
        sum += 1.0f / (float)(i + 1);
    }
    v->sum[lo / v->grain] = sum;
}

Test(pool, results_are_equal_for_1_to_8_threads) {
    static const struct {
        int64_t n, grain;
    } sizes[] = {{1, 1}, {7, 3}, {1000, 1}, {1000, 999}, {4096, 64}, {5, 100}};
    static int count[4096];
    static double sum[4096], first[COUNT_OF(sizes)][4096];
    for (int threads = 1; threads <= 8; threads++) {
        pool_start(threads);
        cr_assert_eq(pool_threads(), threads);
        for (size_t s = 0; s < COUNT_OF(sizes); s++) {
            for (int again = 0; again < 20; again++) {
                struct visits v = {sizes[s].n, sizes[s].grain, count, sum, false};
                memset(count, 0, sizeof count);
                memset(sum, 0, sizeof sum);
                pool_for(v.n, v.grain, visit, &v);
                cr_assert_not(v.wrong, "%d threads, n %d, grain %d", threads, (int)v.n,
                              (int)v.grain);
                for (int64_t i = 0; i < v.n; i++) cr_assert_eq(count[i], 1);
                if (threads == 1 && again == 0) memcpy(first[s], sum, sizeof sum);
                cr_assert_eq(memcmp(first[s], sum, sizeof sum), 0, "%d threads, n %d", threads,
                             (int)v.n);
            }
        }
    }
}

// A core of another speed: pieces of thread 1 take twenty times as long as those of the others.
struct hybrid {
    int64_t by[4]; // pieces
    int64_t own;   // of those, how many of their own share
    int64_t n;
};
static void visit_slowly(void *arg, int64_t lo, int64_t hi, int thread) {
    struct hybrid *h = arg;
    usleep(thread == 1 ? 40000 : 2000);
    __atomic_fetch_add(&h->by[thread], hi - lo, __ATOMIC_RELAXED);
    if (lo >= h->n * thread / 4 && lo < h->n * (thread + 1) / 4) __atomic_fetch_add(&h->own, 1, __ATOMIC_RELAXED);
}

Test(pool, a_slow_core_does_less_and_holds_up_nobody, .timeout = 20) {
    struct hybrid h = {.n = 200};
    pool_start(4);
    double start = time_now();
    pool_for(h.n, 1, visit_slowly, &h);
    double seconds = time_now() - start;
    cr_assert_eq(h.by[0] + h.by[1] + h.by[2] + h.by[3], h.n);
    // Alone, thread 1 would have 50 pieces of 40 ms, 2 s. The others do 200 of 2 ms in 133 ms and it 3 or 4 meanwhile.
    cr_assert_leq(h.by[1], h.n / 5, "the slow core did %lld pieces of %lld", (long long)h.by[1], (long long)h.n);
    cr_assert_lt(seconds, 1.9, "%.2f s", seconds);
    cr_assert_geq(h.own, h.n / 3, "only %lld pieces were done by those whose share they were in", (long long)h.own);
}

static void visit_nested(void *arg, int64_t lo, int64_t hi, int thread) {
    (void)thread;
    long *total = arg;
    for (int64_t i = lo; i < hi; i++) {
        static int count[64][10];
        static double sum[64][10];
        struct visits v = {10, 3, count[i], sum[i], false};
        pool_for(v.n, v.grain, visit, &v);
        for (int k = 0; k < 10; k++) total[i] += count[i][k];
    }
}

Test(pool, a_nested_call_runs_and_finishes, .timeout = 10) {
    long total[64] = {0};
    pool_start(4);
    pool_for(64, 1, visit_nested, total);
    for (int i = 0; i < 64; i++) cr_assert_eq(total[i], 10);
}

static void never(void *arg, int64_t lo, int64_t hi, int thread) {
    (void)lo, (void)hi, (void)thread;
    *(bool *)arg = true;
}

Test(pool, nothing_to_do_calls_nobody) {
    bool called = false;
    pool_start(3);
    pool_for(0, 1, never, &called);
    pool_for(-5, 1, never, &called);
    cr_assert_not(called);
}

Test(pool, restarts_at_any_size_and_sleeps_between_calls, .timeout = 20) {
    static int count[100];
    static double sum[100];
    for (int round = 0; round < 30; round++) {
        pool_start(1 + round * 5 % 9);
        if (round % 5 == 0) usleep(20000); // long enough for workers to fall asleep
        memset(count, 0, sizeof count);
        struct visits v = {100, 1, count, sum, false};
        pool_for(v.n, v.grain, visit, &v);
        for (int i = 0; i < 100; i++) cr_assert_eq(count[i], 1);
    }
    setenv("OMP_NUM_THREADS", "1", 1);
    cr_assert_eq(pool_cores(), 1);
    unsetenv("OMP_NUM_THREADS");
    cr_assert_geq(pool_cores(), 1);
}

Test(pool, time_runs_forward) {
    double before = time_now();
    usleep(2000);
    double passed = time_now() - before;
    cr_assert(passed >= 0.002 && passed < 5, "%g s", passed);
}

// ---------------------------------------------------------------------------------------------------------------
// Dtypes.

static float float_from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

Test(dtype, every_f16_means_what_ieee_says_and_comes_back) {
    for (uint32_t h = 0; h < 65536; h++) {
        int exponent = h >> 10 & 31, fraction = h & 1023;
        double sign = h & 0x8000 ? -1 : 1, value;
        float x = f16_to_f32((uint16_t)h);
        if (exponent == 31 && fraction) {
            cr_assert(isnan(x), "%04x", h);
            cr_assert(isnan(f16_to_f32(f16_from_f32(x))), "%04x", h);
            continue;
        }
        value = exponent == 31 ? INFINITY
                : exponent     ? ldexp(1024 + fraction, exponent - 25)
                               : ldexp(fraction, -24);
        cr_assert_eq((double)x, sign * value, "%04x", h);
        cr_assert_eq(f16_from_f32(x), h, "%04x came back as %04x", h, f16_from_f32(x));
    }
}

// Between each two neighbours: the middle goes to the even one, all else to the nearer.
Test(dtype, f16_rounds_to_nearest_even) {
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1)),
              middle = (low + high) / 2;
        uint32_t even = h & 1 ? h + 1 : h;
        cr_assert_eq(f16_from_f32(middle), even, "%04x", h);
        cr_assert_eq(f16_from_f32(-middle), even | 0x8000, "%04x", h);
        cr_assert_eq(f16_from_f32(nextafterf(middle, 0)), h, "%04x", h);
        cr_assert_eq(f16_from_f32(nextafterf(middle, INFINITY)), h + 1, "%04x", h);
    }
    cr_assert_eq(f16_from_f32(65519.996f), 0x7bff);
    cr_assert_eq(f16_from_f32(65520), 0x7c00);
    cr_assert_eq(f16_from_f32(3e38f), 0x7c00);
    cr_assert_eq(f16_from_f32(-INFINITY), 0xfc00);
    cr_assert_eq(f16_from_f32(1e-45f), 0);
}

Test(dtype, every_bf16_comes_back_and_rounds_to_nearest_even) {
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bf16_to_f32((uint16_t)h);
        if (isnan(x)) {
            cr_assert(isnan(bf16_to_f32(bf16_from_f32(x))), "%04x", h);
            continue;
        }
        cr_assert_eq(bf16_from_f32(x), h, "%04x", h);
        if ((h & 0x7fff) >= 0x7f80) continue;
        uint32_t even = h & 1 ? h + 1 : h;
        cr_assert_eq(bf16_from_f32(float_from_bits(h << 16 | 0x8000)), even, "%04x", h);
        cr_assert_eq(bf16_from_f32(float_from_bits(h << 16 | 0x7fff)), h, "%04x", h);
        cr_assert_eq(bf16_from_f32(float_from_bits(h << 16 | 0x8001)), h + 1, "%04x", h);
    }
    for (uint32_t low = 1; low < 65536;
         low++) { // a NaN whose bits are all in the half that is cut off
        cr_assert(isnan(bf16_to_f32(bf16_from_f32(float_from_bits(0x7f800000 | low)))), "%04x",
                  low);
    }
}

enum { NORMALS = 1 << 17 };

// Relative RMSE of a round trip over N(0,1).
static double round_trip_rmse(enum dtype d) {
    static float x[NORMALS], y[NORMALS];
    static unsigned char blocks[NORMALS * 4];
    const struct dtype_row *row = dtype_row(d);
    for (int i = 0; i < NORMALS; i++) x[i] = (float)rng_normal(21, 0, (uint64_t)i);
    row->from_f32(x, blocks, NORMALS);
    row->to_f32(blocks, y, NORMALS);
    double error = 0, size = 0;
    for (int i = 0; i < NORMALS; i++) {
        error += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
        size += (double)x[i] * x[i];
    }
    return sqrt(error / size);
}

// Expected values: methods G.2, within 3%. f16: a rounding error uniform over a unit of 2^-11 gives about 2e-4.
Test(dtype, quantizing_normals_costs_what_it_should) {
    cr_assert_eq(round_trip_rmse(DTYPE_F32), 0);
    cr_assert_float_eq(round_trip_rmse(DTYPE_Q8_0), 0.0053, 0.03 * 0.0053);
    cr_assert_float_eq(round_trip_rmse(DTYPE_Q4_0), 0.0860, 0.03 * 0.0860);
    cr_assert_lt(round_trip_rmse(DTYPE_F16), 2.5e-4);
    cr_assert_lt(round_trip_rmse(DTYPE_BF16), 2e-3);
}

Test(dtype, quantizing_again_changes_nothing) {
    static const enum dtype kinds[] = {DTYPE_Q8_0, DTYPE_Q4_0};
    static float x[QK * 500];
    static unsigned char once[QK * 500 * 2], again[QK * 500 * 2];
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        const struct dtype_row *row = dtype_row(kinds[k]);
        size_t bytes;
        cr_assert(dtype_row_bytes(kinds[k], COUNT_OF(x), &bytes));
        for (size_t i = 0; i < COUNT_OF(x); i++)
            x[i] = (float)(rng_normal(22, k, i) * exp(rng_normal(23, k, i / QK)));
        row->from_f32(x, once, COUNT_OF(x));
        row->to_f32(once, x, COUNT_OF(x));
        row->from_f32(x, again, COUNT_OF(x));
        cr_assert_eq(memcmp(once, again, bytes), 0, "%s", row->name);
    }
}

Test(dtype, block_layouts_are_those_of_gguf) {
    struct block_q8_0 a = {.d = f16_from_f32(0.5f)};
    struct block_q4_0 b = {.d = f16_from_f32(-2)};
    float y[QK];
    for (int j = 0; j < QK; j++) a.q[j] = (int8_t)(j * 8 - 128);
    dtype_row(DTYPE_Q8_0)->to_f32(&a, y, QK);
    for (int j = 0; j < QK; j++) cr_assert_eq(y[j], 0.5f * (float)(j * 8 - 128));
    for (int j = 0; j < QK / 2; j++) b.q[j] = (uint8_t)(j | (15 - j) << 4);
    dtype_row(DTYPE_Q4_0)->to_f32(&b, y, QK);
    for (int j = 0; j < QK / 2; j++) {
        cr_assert_eq(y[j], -2.0f * (float)(j - 8), "low nibble %d", j);
        cr_assert_eq(y[j + QK / 2], -2.0f * (float)(15 - j - 8), "high nibble %d", j);
    }
    // The element of largest magnitude gets code 0 and is exact up to the rounding of d.
    float x[QK] = {0};
    x[5] = 4;
    x[6] = -3;
    dtype_row(DTYPE_Q4_0)->from_f32(x, &b, QK);
    cr_assert_eq(f16_to_f32(b.d), -0.5f);
    cr_assert_eq(b.q[5] & 15, 0);
    cr_assert_eq(b.q[6] & 15, 14);
}

Test(dtype, zeros_and_tiny_blocks_become_zeros) {
    static const float fills[] = {0, -0.0f, 1e-45f, 1e-40f, 1e-38f, -1e-30f};
    for (size_t f = 0; f < COUNT_OF(fills); f++) {
        for (enum dtype d = 0; d < DTYPE_COUNT; d++) {
            enum { N = 256 }; // a multiple of every block
            float x[N], y[N];
            unsigned char block[N * 4];
            // What has the exponents of f32 keeps tiny numbers.
            if (!dtype_row(d)->from_f32 || d == DTYPE_F32 || d == DTYPE_BF16 || d == DTYPE_MXFP4)
                continue;
            for (int j = 0; j < N; j++) x[j] = j % 3 ? fills[f] : 0;
            dtype_row(d)->from_f32(x, block, N);
            dtype_row(d)->to_f32(block, y, N);
            for (int j = 0; j < N; j++)
                cr_assert_eq(y[j], 0, "%s of %g", dtype_row(d)->name, (double)fills[f]);
        }
    }
}

Test(dtype, a_nan_leaves_the_rest_of_its_block_alone) {
    static const enum dtype kinds[] = {DTYPE_Q8_0, DTYPE_Q4_0};
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        float x[QK], y[QK], z[QK];
        unsigned char block[64];
        for (int j = 0; j < QK; j++) x[j] = j == 7 ? 0 : (float)rng_normal(30, k, (uint64_t)j);
        dtype_row(kinds[k])->from_f32(x, block, QK);
        dtype_row(kinds[k])->to_f32(block, y, QK);
        x[7] = NAN;
        dtype_row(kinds[k])->from_f32(x, block, QK);
        dtype_row(kinds[k])->to_f32(block, z, QK);
        for (int j = 0; j < QK; j++)
            cr_assert_eq(y[j], z[j], "%s, element %d", dtype_row(kinds[k])->name, j);
    }
}

Test(dtype, names_and_ids_find_their_row) {
    static const struct {
        const char *name;
        uint32_t id;
    } gguf[] = {{"F32", 0},   {"F16", 1},   {"BF16", 30},  {"Q8_0", 8},    {"Q4_0", 2},    {"I32", 26},
                {"Q4_1", 3},  {"Q5_0", 6},  {"Q5_1", 7},   {"Q2_K", 10},   {"Q3_K", 11},   {"Q4_K", 12},
                {"Q5_K", 13}, {"Q6_K", 14}, {"IQ4_NL", 20}, {"IQ4_XS", 23}, {"MXFP4", 39}};
    cr_assert_eq(COUNT_OF(gguf), DTYPE_COUNT);
    for (int d = 0; d < DTYPE_COUNT; d++) {
        cr_assert_str_eq(dtype_row((enum dtype)d)->name, gguf[d].name);
        cr_assert_eq(dtype_row((enum dtype)d)->gguf_type, gguf[d].id);
        cr_assert_eq((int)dtype_from_name(gguf[d].name), d);
        cr_assert_eq((int)dtype_from_gguf(gguf[d].id), d);
    }
    cr_assert_eq(dtype_from_name("q8_0"), DTYPE_Q8_0);
    cr_assert_eq(dtype_from_name("Q8"), DTYPE_COUNT);
    cr_assert_eq(dtype_from_name(""), DTYPE_COUNT);
    cr_assert_eq(dtype_from_gguf(4), DTYPE_COUNT); // withdrawn
    cr_assert_eq(dtype_from_gguf(UINT32_MAX), DTYPE_COUNT);
}

Test(dtype, row_sizes_are_checked) {
    size_t bytes;
    cr_assert(dtype_row_bytes(DTYPE_Q4_0, 64, &bytes) && bytes == 36);
    cr_assert(dtype_row_bytes(DTYPE_Q8_0, 0, &bytes) && bytes == 0);
    cr_assert(dtype_row_bytes(DTYPE_BF16, 7, &bytes) && bytes == 14);
    cr_assert_not(dtype_row_bytes(DTYPE_Q8_0, 33, &bytes));
    cr_assert_not(dtype_row_bytes(DTYPE_F32, -1, &bytes));
    cr_assert_not(dtype_row_bytes(DTYPE_F32, INT64_MAX, &bytes));
}

// ---- free memory

static void put(const char *root, const char *path, const char *text) {
    char full[512];
    struct err err;
    snprintf(full, sizeof full, "%s/%s", root, path);
    char *slash = strrchr(full, '/');
    *slash = '\0';
    cr_assert(file_make_folder(full, &err), "%s", err.text);
    *slash = '/';
    FILE *f = fopen(full, "w");
    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

Test(core, free_memory_is_what_the_machine_and_every_cgroup_leave) {
    char root[] = "/tmp/lehr-memory-XXXXXX", command[128];
    cr_assert(mkdtemp(root));
    cr_assert_eq(mem_available_under(root), 0, "nothing is known");
    put(root, "proc/meminfo", "MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:   4000 kB\n");
    cr_assert_eq(mem_available_under(root), 4000 * 1024);
    // v2: the limit of a group outside of ours counts; files that can be dropped do not.
    put(root, "proc/self/cgroup", "0::/outer/inner\n");
    put(root, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put(root, "sys/fs/cgroup/outer/inner/memory.current", "100000\n");
    cr_assert_eq(mem_available_under(root), 4000 * 1024);
    put(root, "sys/fs/cgroup/outer/memory.max", "1000000\n");
    put(root, "sys/fs/cgroup/outer/memory.current", "700000\n");
    cr_assert_eq(mem_available_under(root), 300000);
    put(root, "sys/fs/cgroup/outer/memory.stat", "anon 5\nactive_file 7\ninactive_file 200000\n");
    cr_assert_eq(mem_available_under(root), 500000);
    put(root, "sys/fs/cgroup/outer/memory.max", "400000\n");
    cr_assert_eq(mem_available_under(root), 1, "more is used than allowed: nothing is free");
    // v1, and a path that leads out of what a container sees.
    put(root, "proc/self/cgroup", "5:cpu:/x\n4:memory:/../../host\n");
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
    cr_assert_eq(mem_available_under(root), 4000 * 1024);
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "90000\n");
    put(root, "sys/fs/cgroup/memory/memory.stat", "inactive_file 3\ntotal_inactive_file 400\n");
    cr_assert_eq(mem_available_under(root), 89400);
    snprintf(command, sizeof command, "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(core, cores_are_what_every_cgroup_grants) {
    char root[] = "/tmp/lehr-quota-XXXXXX", command[128];
    cr_assert(mkdtemp(root));
    cr_assert_eq(pool_quota_under(root), 0, "nothing is known");
    // v2: our own group, one around it, no limit.
    put(root, "proc/self/cgroup", "0::/outer/inner\n");
    put(root, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
    cr_assert_eq(pool_quota_under(root), 0);
    put(root, "sys/fs/cgroup/outer/cpu.max", "350000 100000\n");
    cr_assert_eq(pool_quota_under(root), 4, "rounded up");
    put(root, "sys/fs/cgroup/outer/inner/cpu.max", "200000 100000\n");
    cr_assert_eq(pool_quota_under(root), 2, "the least counts");
    put(root, "sys/fs/cgroup/cpu.max", "50000 100000\n"); // what a container sees of its own
    cr_assert_eq(pool_quota_under(root), 1);
    put(root, "sys/fs/cgroup/cpu.max", "9000000000 100000\n");
    put(root, "sys/fs/cgroup/outer/inner/cpu.max", "garbage\n");
    cr_assert_eq(pool_quota_under(root), 4);
    // v1, beside other controllers; -1 is no limit.
    put(root, "proc/self/cgroup", "7:cpuset:/y\n5:cpu,cpuacct:/x\n");
    put(root, "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n");
    put(root, "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
    put(root, "sys/fs/cgroup/cpu.max", "max 100000\n");
    cr_assert_eq(pool_quota_under(root), 0);
    put(root, "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "300000\n");
    cr_assert_eq(pool_quota_under(root), 3);
    snprintf(command, sizeof command, "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}
