// Nothing a model file says can crash, hang or swell the program: cuts at every byte, thousands of
// bent variants from hostile.c, and the shapes of the peers' CVEs, each under its number. Every
// file is opened from an allocation of exactly its size, so that under the address sanitizer one
// byte read too far is found.
#include "formats/formats.h"
#include "formats/internal.h"
#include "tests/hand.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void every_cut_is_refused(struct text t) {
    hand_accepted(&t);
    size_t whole = t.len;
    for (t.len = 0; t.len < whole; t.len++) {
        struct err err;
        void *copy;
        struct model_file *f = hand_open(t.data, t.len, &copy, &err);
        cr_assert(!f, "the first %zu of %zu bytes opened", t.len, whole);
        cr_assert(strlen(err.text) > 20, "cut after %zu of %zu bytes: '%s'", t.len, whole,
                  err.text);
        free(copy);
    }
    text_free(&t);
}

Test(hostile, gguf_cut_at_every_byte_is_refused) { every_cut_is_refused(hand_small_gguf()); }
Test(hostile, llama2c_cut_at_every_byte_is_refused) { every_cut_is_refused(hand_small_bin(true)); }
Test(hostile, llama2c_unshared_cut_at_every_byte_is_refused) {
    every_cut_is_refused(hand_small_bin(false));
}

Test(hostile, the_sentence_for_a_cut_says_how_much_is_missing) {
    struct text t = hand_small_gguf();
    t.len -= 40;
    hand_refused_and_freed(t, "ends 40 bytes before the end of tensor 2 'output_norm.weight'");
}

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif

// From here on the process may grow by this many bytes: a count from a file that is allocated ends
// the test. The address sanitizer reserves terabytes, so there only crashes and reads out of bounds
// are looked for.
static void limit_memory(size_t more) {
#ifndef UNDER_ASAN
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (!f) return;
    if (fscanf(f, "%lu", &pages) != 1) pages = 0;
    fclose(f);
    struct rlimit limit = {0};
    if (!pages || getrlimit(RLIMIT_AS, &limit)) return;
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + more;
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
#else
    (void)more;
#endif
}

static void survive_variants(struct text good, uint64_t seed, size_t flips, size_t least) {
    struct hostile h;
    hostile_open(&h, good.data, good.len, seed, flips);
    size_t n = hostile_count(&h), opened = 0;
    cr_assert_geq(n, least);
    struct text bytes = {0};
    text_add(&bytes, good.data, good.len);
    mem_grow((void **)&bytes.data, &bytes.cap, 2 * good.len + 8192, 1, "variants");
    limit_memory((size_t)8 << 20);
    for (size_t i = 0; i < n; i++) {
        char label[160];
        struct err err;
        void *copy;
        hostile_make(&h, i, &bytes, label);
        double start = time_now();
        struct model_file *f = hand_open(bytes.data, bytes.len, &copy, &err);
        if (f) {
            opened++;
            hostile_walk(f);
        } else
            cr_assert(strlen(err.text) > 20, "variant %zu, %s: refused with '%s'", i, label,
                      err.text);
        model_file_close(f);
        free(copy);
        cr_assert_lt(time_now() - start, 5.0, "variant %zu, %s: took too long", i, label);
    }
    cr_assert(opened > 0 && opened < n,
              "%zu of %zu variants opened: the generator no longer bends what it should", opened,
              n);
    hostile_close(&h);
    text_free(&bytes);
    text_free(&good);
}

Test(hostile, gguf_variants_open_whole_or_are_refused, .timeout = 60) {
    survive_variants(hand_small_gguf(), 1, 3000, 3500);
}
Test(hostile, llama2c_variants_open_whole_or_are_refused, .timeout = 60) {
    survive_variants(hand_small_bin(true), 2, 1000, 1200);
}
Test(hostile, sealed_sample_variants_open_whole_or_are_refused, .fini = hand_cleanup,
     .timeout = 60) {
    survive_variants(hand_sample(true), 3, 1000, 2000);
}

// The CVE shapes of the peers, each by its number.

Test(hostile, cve_2024_23605_key_count_that_wraps) {
    static const uint64_t counts[] = {UINT64_MAX, 1ull << 63,          (1ull << 63) + 1,
                                      1ull << 60, UINT64_MAX / 40 + 1, (1u << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct text t = hand_small_gguf();
        for (size_t k = 0; k < 8; k++) t.data[16 + k] = (char)(unsigned char)(counts[i] >> (8 * k));
        hand_refused_and_freed(t, "keys, the most is");
    }
    struct text t = hand_small_gguf();
    memcpy(t.data + 16, "\0\0\x10\0\0\0\0\0", 8); // 2^20 is allowed, but not in this few bytes
    hand_refused_and_freed(t, "keys of at least 14 bytes, but only");
}

Test(hostile, cve_2024_21836_tensor_count_that_wraps) {
    static const uint64_t counts[] = {UINT64_MAX, 1ull << 63, UINT64_MAX / 144 + 1, (1u << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct text t = hand_small_gguf();
        for (size_t k = 0; k < 8; k++) t.data[8 + k] = (char)(unsigned char)(counts[i] >> (8 * k));
        hand_refused_and_freed(t, "tensors, the most is");
    }
}

Test(hostile, cve_2024_21802_more_than_four_dimensions) {
    static const uint64_t eight[5] = {1, 1, 1, 8, 8};
    hand_refused_and_freed(hand_one_tensor(0, 0, 5, eight), "has 5 dimensions");
    hand_refused_and_freed(hand_one_tensor(0, 0, 0, eight), "has 0 dimensions");
    hand_accepted_and_freed(hand_one_tensor(0, 0, 4, eight + 1));
    struct text t = hand_one_tensor(0, 0, 1, eight);
    memset(t.data + 24 + 8 + 1, 0xff, 4);
    hand_refused_and_freed(t, "has 4294967295 dimensions");
}

Test(hostile, cve_2024_23496_text_length_beyond_the_file) {
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, 1ull << 63,
                                       1ull << 32, 65536,          100};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        struct text key = {0}, value = hand_one_key("k", GGUF_TEXT), name = {0},
                    item = hand_one_key("k", GGUF_ARRAY);
        hand_header(&key, 0, 1);
        hostile_int(&key, lengths[i], 8);
        hostile_int(&key, 0x6161616161616161, 8);
        hand_refused_and_freed(key, "the file ends inside the name of a key");
        hostile_int(&value, lengths[i], 8);
        hostile_int(&value, 0, 8);
        hand_refused_and_freed(value, "the file ends inside the text");
        hand_header(&name, 1, 0);
        hostile_int(&name, lengths[i], 8);
        for (int k = 0; k < 5; k++) hostile_int(&name, 0x6161616161616161, 8);
        hand_refused_and_freed(name, "the file ends inside the name of a tensor");
        hostile_int(&item, GGUF_TEXT, 4);
        hostile_int(&item, 1, 8);
        hostile_int(&item, lengths[i], 8);
        hand_refused_and_freed(item, "the file ends inside the texts of an array");
    }
}

Test(hostile, cve_2024_21825_array_whose_bytes_wrap) {
    static const struct {
        uint32_t type;
        uint64_t count;
    } arrays[] = {{GGUF_F64, 1ull << 61},
                  {GGUF_U64, (1ull << 61) + 1},
                  {GGUF_F32, 1ull << 62},
                  {GGUF_U16, (1ull << 63) + 4},
                  {GGUF_TEXT, 1ull << 61},
                  {GGUF_TEXT, UINT64_MAX},
                  {GGUF_U8, UINT64_MAX},
                  {GGUF_U8, 17},
                  {GGUF_U64, 3}};
    for (size_t i = 0; i < COUNT_OF(arrays); i++) {
        struct text t = hand_one_key("k", GGUF_ARRAY);
        hostile_int(&t, arrays[i].type, 4);
        hostile_int(&t, arrays[i].count, 8);
        hostile_int(&t, 0, 8);
        hostile_int(&t, 0, 8);
        hand_refused_and_freed(t, "claims");
    }
}

Test(hostile, cve_2025_53630_sizes_whose_sum_wraps) {
    // Each tensor fits 64 bits, their padded sum does not.
    struct text t = {0};
    static const uint64_t big[] = {0x7fffffff, 0x7fffffff};
    hand_header(&t, 5, 0);
    for (uint64_t i = 0; i < 5; i++) {
        char name[2] = {(char)('a' + i)};
        hand_tensor(&t, name, 0, i * 0xfffffffc00000020, 2, big);
    }
    hostile_pad(&t, 32);
    for (int i = 0; i < 64; i++) hostile_int(&t, 0, 1);
    hand_refused_and_freed(t, "tensor");
}

Test(hostile, cve_2026_27940_offset_plus_size_wraps) {
    static const uint64_t eight[] = {8, 8};
    static const uint64_t offsets[] = {UINT64_MAX - 31, UINT64_MAX - 255, UINT64_MAX - 319,
                                       1ull << 63, INT64_MAX - 31};
    for (size_t i = 0; i < COUNT_OF(offsets); i++)
        hand_refused_and_freed(hand_one_tensor(0, offsets[i], 2, eight),
                               i < 3 ? "beyond the end of any file" : "the file ends");
    hand_accepted_and_freed(hand_one_tensor(0, 0, 2, eight));
}

Test(hostile, cve_2026_33298_dimensions_whose_product_wraps) {
    static const struct {
        int dims;
        uint64_t size[4];
        const char *why;
    } shape[] = {
        {2, {1ull << 32, 1ull << 32}, "expected 1 to 2147483647"},
        {4, {1u << 16, 1u << 16, 1u << 16, 1u << 16}, "multiply to more bytes"},
        {3, {1u << 30, 1u << 30, 16}, "multiply to more bytes"},
        {4, {1u << 20, 1u << 20, 1u << 20, 4}, "the file ends"},
        {2, {UINT64_MAX, UINT64_MAX}, "expected 1 to"},
        {2, {8, 1ull << 63}, "expected 1 to"},
        {3, {0x7fffffff, 0x7fffffff, 5}, "multiply to more bytes"},
    };
    for (size_t i = 0; i < COUNT_OF(shape); i++) {
        if (i == 3) continue; // 2^62 weights of 4 bytes are 2^64: see below
        hand_refused_and_freed(hand_one_tensor(0, 0, shape[i].dims, shape[i].size), shape[i].why);
    }
    hand_refused_and_freed(hand_one_tensor(0, 0, 4, shape[3].size), "multiply to more bytes");
    hand_refused_and_freed(hand_one_tensor(24, 0, 4, shape[3].size),
                           "the file ends"); // I8: 2^62 bytes fit a size, not the file
}

Test(hostile, cve_2026_7482_tensor_beyond_the_file) {
    static const uint64_t eight[] = {8, 8}, nine[] = {8, 9};
    hand_refused_and_freed(hand_one_tensor(0, 32, 2, eight),
                           "ends 32 bytes before the end of tensor 0 'w'");
    hand_refused_and_freed(hand_one_tensor(0, 0, 2, nine),
                           "ends 32 bytes before the end of tensor 0 'w'");
    hand_refused_and_freed(hand_one_tensor(0, 1 << 20, 2, eight), "before the end of tensor 0 'w'");
}

Test(hostile, cve_2025_0317_sizes_of_zero) {
    static const uint64_t none[] = {0, 8}, null[] = {8, 0};
    hand_refused_and_freed(hand_one_tensor(0, 0, 2, none), "dimension 1 is 0");
    hand_refused_and_freed(hand_one_tensor(0, 0, 2, null), "dimension 0 is 0");
}

Test(hostile, unaligned_and_overlapping_tensors) {
    static const uint64_t four[] = {4}, sixteen[] = {16};
    for (uint64_t offset = 1; offset < 32; offset++)
        hand_refused_and_freed(hand_one_tensor(0, offset, 1, four),
                               "no multiple of the alignment 32");
    for (uint64_t k = 0; k < 2; k++) {
        struct text t = {0};
        hand_header(&t, 2, 0);
        hand_tensor(&t, "long", 0, k ? 32 : 0, 1, sixteen);
        hand_tensor(&t, "short", 0, k ? 64 : 0, 1, four);
        hostile_pad(&t, 32);
        for (int i = 0; i < 128; i++) hostile_int(&t, 0, 1);
        hand_refused_and_freed(t, "overlap");
    }
}

Test(hostile, alignment_of_any_other_kind) {
    static const struct {
        uint32_t type;
        uint64_t x;
        size_t width;
    } bad[] = {{GGUF_U32, 0, 4},          {GGUF_U32, 1, 4},        {GGUF_U32, 33, 4},
               {GGUF_U32, 48, 4},         {GGUF_U32, 1u << 31, 4}, {GGUF_U32, UINT32_MAX, 4},
               {GGUF_U64, 32, 8},         {GGUF_I32, 32, 4},       {GGUF_U8, 32, 1},
               {GGUF_F32, 0x42000000, 4}, {GGUF_TEXT, 0, 8}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = hand_one_key("general.alignment", bad[i].type);
        hostile_int(&t, bad[i].x, bad[i].width);
        hand_refused_and_freed(t, "general.alignment");
    }
}

Test(hostile, rows_that_are_no_multiple_of_their_block) {
    static const uint64_t odd[] = {33}, tall[] = {16, 32}, k[] = {128};
    hand_refused_and_freed(hand_one_tensor(8, 0, 1, odd),
                           "no multiple of the 32 in a block of Q8_0");
    hand_refused_and_freed(hand_one_tensor(2, 0, 2, tall),
                           "no multiple of the 32 in a block of Q4_0");
    hand_refused_and_freed(hand_one_tensor(12, 0, 1, k),
                           "no multiple of the 256 in a block of Q4_K");
}

Test(hostile, unknown_and_withdrawn_tensor_types) {
    static const uint64_t eight[] = {256};
    static const uint32_t ids[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(ids); i++)
        hand_refused_and_freed(hand_one_tensor(ids[i], 0, 1, eight), "unknown or was withdrawn");
}

Test(hostile, nested_arrays_and_unknown_value_types) {
    struct text nest = hand_one_key("k", GGUF_ARRAY);
    for (int i = 0; i < 64; i++) {
        hostile_int(&nest, GGUF_ARRAY, 4);
        hostile_int(&nest, 1, 8);
    }
    hand_refused_and_freed(nest, "array of arrays");
    static const uint32_t types[] = {13, 14, 255, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct text value = hand_one_key("k", types[i]), item = hand_one_key("k", GGUF_ARRAY);
        hostile_int(&value, 0, 8);
        hand_refused_and_freed(value, "the known ones are 0 to 12");
        hostile_int(&item, types[i], 4);
        hostile_int(&item, 0, 8);
        hand_refused_and_freed(item, "the known ones are 0 to 12");
    }
}

Test(hostile, names_twice_empty_or_unprintable) {
    static const char *const names[] = {"",         "a\nb",         "\x1b[2J",  "\x7f",    "\xff",
                                        "\xc0\xaf", "\xed\xa0\x80", "\xc2\x85", "\xe2\x82"};
    static const uint64_t eight[] = {8};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct text key = hand_one_key(names[i], GGUF_U32), tensor = {0};
        hostile_int(&key, 0, 4);
        hand_refused_and_freed(key, "its name");
        hand_header(&tensor, 1, 0);
        hand_tensor(&tensor, names[i], 0, 0, 1, eight);
        hostile_pad(&tensor, 32);
        for (int k = 0; k < 32; k++) hostile_int(&tensor, 0, 1);
        hand_refused_and_freed(tensor, "its name");
    }
    struct text t = {0}; // a NUL inside, where a C string would end
    hand_header(&t, 0, 1);
    hostile_int(&t, 3, 8);
    text_add(&t, "k\0k", 3);
    hostile_int(&t, GGUF_U8, 4);
    hostile_int(&t, 0, 1);
    hand_refused_and_freed(t, "its name holds a control character");
    struct text twice = {0};
    hand_header(&twice, 0, 3);
    for (int i = 0; i < 3; i++) {
        hand_key(&twice, i == 1 ? "other" : "same", GGUF_U8);
        hostile_int(&twice, 0, 1);
    }
    hand_refused_and_freed(twice, "key 'same' is there twice");
    struct text tensors = {0};
    hand_header(&tensors, 2, 0);
    hand_tensor(&tensors, "same", 0, 0, 1, eight);
    hand_tensor(&tensors, "same", 0, 32, 1, eight);
    hostile_pad(&tensors, 32);
    for (int k = 0; k < 64; k++) hostile_int(&tensors, 0, 1);
    hand_refused_and_freed(tensors, "tensor 'same' is there twice");
}

Test(hostile, names_of_the_longest_length_and_one_more) {
    static const uint64_t eight[] = {8};
    for (size_t n = 64; n <= 65; n++) {
        char name[66] = {0};
        memset(name, 'n', n);
        struct text t = {0};
        hand_header(&t, 1, 0);
        hand_tensor(&t, name, 0, 0, 1, eight);
        hostile_pad(&t, 32);
        for (int k = 0; k < 32; k++) hostile_int(&t, 0, 1);
        if (n == 64)
            hand_accepted_and_freed(t);
        else
            hand_refused_and_freed(t, "65 bytes long, the most is 64");
    }
    for (size_t n = 65535; n <= 65536; n++) {
        struct text t = {0};
        hand_header(&t, 0, 1);
        hostile_int(&t, n, 8);
        for (size_t i = 0; i < n; i++) text_add(&t, "k", 1);
        hostile_int(&t, GGUF_U8, 4);
        hostile_int(&t, 0, 1);
        if (n == 65535)
            hand_accepted_and_freed(t);
        else
            hand_refused_and_freed(t, "65536 bytes long, the most is 65535");
    }
}

Test(hostile, bools_that_are_neither) {
    struct text one = hand_one_key("b", GGUF_BOOL), many = hand_one_key("b", GGUF_ARRAY);
    hostile_int(&one, 2, 1);
    hand_refused_and_freed(one, "a bool is 2");
    hostile_int(&many, GGUF_BOOL, 4);
    hostile_int(&many, 3, 8);
    hostile_int(&many, 0xff0100, 3);
    hand_refused_and_freed(many, "a bool is 255");
}
