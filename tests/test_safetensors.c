// test_safetensors.c: the table of a safetensors file is believed only when it is consistent to the
// last byte; every other file is refused with a sentence, from an allocation of exactly its size.
#include "formats/internal.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

// A file of this header and `data` zero bytes.
static struct text file_of(const char *header, size_t data) {
    struct text t = {0};
    hostile_int(&t, strlen(header), 8);
    text_str(&t, header);
    for (size_t i = 0; i < data; i++) hostile_int(&t, i * 37 + 1, 1);
    return t;
}

// Reads a copy of exactly n bytes and walks what was accepted.
static bool reads(const char *bytes, size_t n, struct err *err) {
    unsigned char *copy = malloc(n ? n : 1);
    struct st_file s;
    uint64_t sum = 0;
    if (n) memcpy(copy, bytes, n);
    *err = (struct err){""};
    bool good = safetensors_read(copy, n, &s, err);
    for (size_t i = 0; good && i < s.n; i++) {
        struct span name = safetensors_name(&s, &s.tensors[i]);
        cr_assert(s.tensors[i].begin <= n && s.tensors[i].bytes <= n - s.tensors[i].begin);
        sum = hash_bytes(sum, copy + s.tensors[i].begin, s.tensors[i].bytes);
        cr_assert_eq(name_index_find(&s.index, name.p, name.n, s.n), i);
    }
    cr_assert(good || strlen(err->text) > 20, "refused without a sentence: '%s'", err->text);
    safetensors_free(&s);
    free(copy);
    return good;
}

static void refused(const char *header, size_t data, const char *why) {
    struct err err;
    struct text t = file_of(header, data);
    cr_expect(!reads(t.data, t.len, &err), "accepted: %s", header);
    cr_expect(strstr(err.text, why), "expected '%s' for %s, got: %s", why, header, err.text);
    text_free(&t);
}

static void accepted(const char *header, size_t data) {
    struct err err;
    struct text t = file_of(header, data);
    cr_expect(reads(t.data, t.len, &err), "%s: %s", header, err.text);
    text_free(&t);
}

#define GOOD                                                                                                     \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"      \
    "\"a\":{\"data_offsets\":[0,8],\"shape\":[4],\"dtype\":\"BF16\"}}  "

Test(safetensors, a_good_file_reads) {
    struct err err;
    struct text t = file_of(GOOD, 32);
    struct st_file s;
    cr_assert(safetensors_read((unsigned char *)t.data, t.len, &s, &err), "%s", err.text);
    cr_assert_eq(s.n, 2);
    cr_assert(span_is(safetensors_name(&s, &s.tensors[0]), "a") && s.tensors[0].dtype == DTYPE_BF16);
    const struct st_tensor *b = &s.tensors[1];
    cr_assert(span_is(safetensors_name(&s, b), "b") && b->n_dims == 2 && b->size[0] == 2 && b->size[1] == 3);
    cr_assert(b->bytes == 24 && b->begin == t.len - 24 && !strcmp(b->type, "F32"));
    safetensors_free(&s);
    text_free(&t);
}

Test(safetensors, corners_of_the_format_are_accepted) {
    accepted("{}", 0);
    accepted("{\"__metadata__\":{}}", 0);
    accepted("{\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8);          // a scalar
    accepted("{\"e\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]},"               // an empty one
             "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
             "\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[3,3]}}", 3);
    accepted("{\"f\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2);
    accepted("{\"\\u00e9\\ud83d\\ude00\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    accepted("{\"lone \\ud800\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1); // reads as U+FFFD
    accepted("{\"a\":{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2e0]}}", 2);
}

Test(safetensors, every_inconsistency_is_named) {
    static const struct {
        const char *header;
        size_t data;
        const char *why;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "ends 1 bytes before the end of tensor 'a'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "1 bytes behind the last tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "there is a hole before it"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "ends before that"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "its shape as F32 needs 12"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "a part of a byte"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype 'Q4' is unknown"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "has no 'dtype'"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "has no 'shape'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "has no 'data_offsets'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "has 1 numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "more than 2 numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "more than 8 numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "holds -2"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "holds -8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, "unknown field 'x'"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'dtype' twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1e309],\"data_offsets\":[0,8]}}", 8, "out of range"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,8]}}", 8, "integer"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,4],\"data_offsets\":[0,8]}}", 8, "more bytes than any"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "more bytes than any"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "overlaps the one before"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "overlaps the one before"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "'a' is there twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "'a' is there twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "is there twice"},
        {"{\"__metadata__\":[]}", 0, "is no object"},
        {"{\"\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "control character"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "is empty"},
        {"{\"a\":[]}", 0, "expected an object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", 8, "the text ends"},
        {"{} {}", 0, "more text after the value"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},}", 8, "a comma before"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) refused(cases[i].header, cases[i].data, cases[i].why);
}

Test(safetensors, lengths_of_the_header_are_compared_with_the_file) {
    static const uint64_t lengths[] = {0, 1, 100000001, 0x7fffffffffffffff, 0xffffffffffffffff, 0xfffffffffffffff8, 99};
    struct err err;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        struct text t = {0};
        hostile_int(&t, lengths[i], 8);
        text_str(&t, "{}");
        cr_expect(!reads(t.data, t.len, &err), "%llu", (unsigned long long)lengths[i]);
        text_free(&t);
    }
    for (size_t n = 0; n < 8; n++) cr_expect(!reads("\2\0\0\0\0\0\0\0", n, &err));
}

Test(safetensors, deep_nesting_and_long_names_cost_nothing) {
    struct text h = {0};
    struct err err;
    text_str(&h, "{\"__metadata__\":{\"a\":");
    for (int i = 0; i < 100000; i++) text_str(&h, "[");
    refused(h.data, 0, "nesting deeper");
    text_clear(&h);
    text_str(&h, "{\"");
    for (int i = 0; i < 300; i++) text_str(&h, "n");
    text_str(&h, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    refused(h.data, 1, "a key longer than");
    text_free(&h);
    (void)err;
}

Test(safetensors, cuts_and_flips_never_read_outside) {
    struct text t = file_of(GOOD, 32);
    struct err err;
    cr_assert(reads(t.data, t.len, &err), "%s", err.text);
    for (size_t n = 0; n < t.len; n++) cr_assert(!reads(t.data, n, &err), "the first %zu of %zu bytes opened", n, t.len);
    size_t header = t.len - 32;
    for (size_t bit = 0; bit < header * 8; bit++) {
        t.data[bit / 8] = (char)((unsigned char)t.data[bit / 8] ^ (1u << bit % 8));
        reads(t.data, t.len, &err);
        t.data[bit / 8] = (char)((unsigned char)t.data[bit / 8] ^ (1u << bit % 8));
    }
    for (uint64_t k = 0; k < 4000; k++) { // 2 to 5 random bytes of the header
        struct text bad = {0};
        text_add(&bad, t.data, t.len);
        for (uint64_t i = 0, n = 2 + rng_below(7, k, 0, 4); i < n; i++)
            bad.data[rng_below(7, k, 2 * i + 1, header)] = (char)(unsigned char)rng_below(7, k, 2 * i + 2, 256);
        reads(bad.data, bad.len, &err);
        text_free(&bad);
    }
    text_free(&t);
}
