// Tests of formats/: what is written reads back under every type, what is no model is called what
// it is, the writer is atomic and tells its problems at commit, and the seal finds every flipped
// byte. Hostile files are in test_hostile.c.
#include "formats/formats.h"
#include "formats/internal.h"
#include "tests/hand.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---------------------------------------------------------------------------------------------------------------
// Writing and reading back.

Test(formats, every_key_type_reads_back, .fini = hand_cleanup) {
    struct err err;
    cr_assert(hand_write_sample(hand_path("a.gguf"), false, &err), "%s", err.text);
    struct model_file *f = model_file_open(hand_path("a.gguf"), &err);
    cr_assert(f, "%s", err.text);
    cr_assert_str_eq(model_file_kind(f), "GGUF v3");
    int64_t x = -7;
    double d = 0;
    bool b = false;
    struct span s;
    cr_assert(meta_int(f, "u32", true, 0, INT64_MAX, &x, &err) && x == UINT32_MAX);
    cr_assert(meta_int(f, "i32", true, INT64_MIN, 0, &x, &err) && x == INT32_MIN);
    cr_assert(meta_real(f, "f32", true, 0, 1, &d, &err) && d == (double)0.1f);
    cr_assert(meta_real(f, "f64", true, 0, 1, &d, &err) && d == 0.1);
    cr_assert(meta_real(f, "i32", true, -1e10, 0, &d, &err) && d == (double)INT32_MIN);
    cr_assert(meta_bool(f, "yes", true, &b, &err) && b);
    cr_assert(meta_bool(f, "no", true, &b, &err) && !b);
    cr_assert(meta_text(f, "general.architecture", true, &s, &err) && span_is(s, "llama"));
    struct meta_array a;
    cr_assert(meta_array_open(f, "texts", META_TEXT, &a, &err) && a.count == 4);
    cr_assert(meta_next_text(&a, &s) && span_is(s, "a"));
    cr_assert(meta_next_text(&a, &s) && span_is(s, ""));
    cr_assert(meta_next_text(&a, &s) && span_is(s, "\xe2\x96\x81of"));
    cr_assert(meta_next_text(&a, &s) && s.n == 6 && !memcmp(s.p, "nul\0in", 6));
    cr_assert(!meta_next_text(&a, &s));
    cr_assert(meta_array_open(f, "no texts", META_TEXT, &a, &err) && a.count == 0 &&
              !meta_next_text(&a, &s));
    cr_assert(meta_array_open(f, "reals", META_REAL, &a, &err) && a.count == 4);
    cr_assert(meta_next_real(&a, &d) && d == 1.5);
    cr_assert(meta_next_real(&a, &d) && d == 0 && signbit(d));
    cr_assert(meta_array_open(f, "integers", META_INT, &a, &err));
    cr_assert(meta_next_int(&a, &x) && x == 0);
    cr_assert(meta_next_int(&a, &x) && x == -1);
    cr_assert(meta_next_int(&a, &x) && x == INT32_MIN);
    cr_assert(meta_next_int(&a, &x) && x == INT32_MAX && !meta_next_int(&a, &x));
    cr_assert(meta_array_open(f, "integers", META_REAL, &a, &err) && a.kind == META_INT);
    cr_assert(meta_next_real(&a, &d) && meta_next_real(&a, &d) && d == -1.0);
    model_file_close(f);
}

Test(formats, integer_types_of_other_writers_are_read) {
    static const struct {
        const char *key;
        uint32_t type;
        uint64_t bits;
        size_t width;
        int64_t expected;
    } cases[] = {
        {"u8", GGUF_U8, 200, 1, 200},         {"i8", GGUF_I8, 200, 1, -56},
        {"u16", GGUF_U16, 65535, 2, 65535},   {"i16", GGUF_I16, 65535, 2, -1},
        {"i64", GGUF_I64, UINT64_MAX, 8, -1}, {"u64", GGUF_U64, 1u << 31, 8, 1ll << 31},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text t = {0};
        hand_header(&t, 0, 2);
        hand_key(&t, cases[i].key, cases[i].type);
        hostile_int(&t, cases[i].bits, cases[i].width);
        hand_key(&t, "array", GGUF_ARRAY);
        hostile_int(&t, cases[i].type, 4);
        hostile_int(&t, 2, 8);
        hostile_int(&t, 1, cases[i].width);
        hostile_int(&t, cases[i].bits, cases[i].width);
        struct err err;
        void *copy;
        struct model_file *f = hand_open(t.data, t.len, &copy, &err);
        cr_assert(f, "%s: %s", cases[i].key, err.text);
        int64_t x = 0;
        cr_assert(meta_int(f, cases[i].key, true, INT64_MIN, INT64_MAX, &x, &err), "%s", err.text);
        cr_assert_eq(x, cases[i].expected, "%s: %lld", cases[i].key, (long long)x);
        struct meta_array a;
        cr_assert(meta_array_open(f, "array", META_INT, &a, &err), "%s", err.text);
        cr_assert(meta_next_int(&a, &x) && x == 1);
        cr_assert(meta_next_int(&a, &x) && x == cases[i].expected && !meta_next_int(&a, &x));
        model_file_close(f);
        free(copy);
        text_free(&t);
    }
}

Test(formats, keys_of_wrong_type_or_range_or_absent_say_so, .fini = hand_cleanup) {
    struct text t = hand_sample(false);
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    int64_t x = 42;
    double d = 42;
    bool b = true;
    struct span s;
    struct meta_array a;
    cr_assert(meta_int(f, "absent", false, 0, 1, &x, &err) && x == 42,
              "an optional key is left alone");
    cr_assert(!meta_int(f, "absent", true, 0, 1, &x, &err) && strstr(err.text, "'absent'"));
    cr_assert(!meta_int(f, "u32", false, 0, 1000, &x, &err) &&
              strstr(err.text, "expected 0 to 1000") && x == 42);
    cr_assert(!meta_int(f, "u64", true, INT64_MIN, INT64_MAX, &x, &err), "2^64-1 is no int64_t");
    cr_assert(!meta_int(f, "f32", true, 0, 1, &x, &err) &&
              strstr(err.text, "should be an integer but is a number"));
    cr_assert(!meta_real(f, "yes", true, 0, 1, &d, &err) &&
              !meta_real(f, "f32", true, 1, 2, &d, &err) && d == 42);
    cr_assert(!meta_bool(f, "u32", true, &b, &err) && !meta_text(f, "u32", true, &s, &err));
    cr_assert(!meta_array_open(f, "u32", META_INT, &a, &err) &&
              strstr(err.text, "should be an array"));
    cr_assert(!meta_array_open(f, "texts", META_INT, &a, &err) && strstr(err.text, "each element"));
    cr_assert(!meta_array_open(f, "absent", META_INT, &a, &err));
    cr_assert(!meta_array_open(f, "reals", META_INT, &a, &err));
    cr_assert_eq(meta_kind(f, "texts"), META_ARRAY);
    cr_assert_eq(meta_kind(f, "absent"), META_ABSENT);
    cr_assert_eq(meta_kind(f, "f64"), META_REAL);
    cr_assert_eq(meta_kind(f, "f6"), META_ABSENT, "a prefix is no match");
    cr_assert(!meta_int(f, "absent", true, 0, 1, &x, NULL), "err may be NULL");
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(formats, an_element_beyond_64_signed_bits_arrives_as_the_largest) {
    struct text t = hand_one_key("k", GGUF_ARRAY);
    hostile_int(&t, GGUF_U64, 4);
    hostile_int(&t, 1, 8);
    hostile_int(&t, UINT64_MAX, 8);
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    struct meta_array a;
    int64_t x = 0;
    double d = 0;
    cr_assert(f && meta_array_open(f, "k", META_INT, &a, &err) && meta_next_int(&a, &x) &&
              x == INT64_MAX);
    cr_assert(meta_array_open(f, "k", META_REAL, &a, &err) && meta_next_real(&a, &d) &&
              d == 0x1p64);
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(formats, numbers_that_are_not_finite_are_refused) {
    static const uint64_t bits[] = {0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000};
    for (size_t i = 0; i < COUNT_OF(bits); i++) {
        struct text t = hand_one_key("x", GGUF_F64);
        hostile_int(&t, bits[i], 8);
        struct err err;
        void *copy;
        struct model_file *f = hand_open(t.data, t.len, &copy, &err);
        double d = 1;
        cr_assert(f && !meta_real(f, "x", true, -INFINITY, INFINITY, &d, &err) && d == 1);
        model_file_close(f);
        free(copy);
        text_free(&t);
    }
}

Test(formats, every_dtype_and_rank_reads_back, .fini = hand_cleanup) {
    struct err err;
    cr_assert(hand_write_sample(hand_path("a.gguf"), false, &err), "%s", err.text);
    struct model_file *f = model_file_open(hand_path("a.gguf"), &err);
    cr_assert(f, "%s", err.text);
    cr_assert_eq(model_file_tensor_count(f), DTYPE_COUNT);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        char name[32];
        snprintf(name, sizeof name, "t.%s", dtype_row(hand_dtypes[i])->name);
        const struct file_tensor *t = model_file_tensor(f, name);
        cr_assert_eq(t, model_file_tensor_at(f, i));
        cr_assert(t->dtype == hand_dtypes[i] && t->n_dims == hand_dims_of[i]);
        for (int d = 0; d < t->n_dims; d++) cr_assert_eq(t->size[d], hand_shapes[i][d]);
        cr_assert_str_eq(t->type_name, dtype_row(hand_dtypes[i])->name);
        unsigned char *bytes = malloc(t->bytes);
        hand_fill(bytes, t->bytes, i);
        cr_assert(!memcmp(bytes, t->data, t->bytes), "%s", name);
        cr_assert_eq((uintptr_t)t->data % ALIGNMENT_DEFAULT, 0);
        free(bytes);
    }
    cr_assert_null(model_file_tensor(f, "t."));
    cr_assert_null(model_file_tensor(f, ""));
    cr_assert_eq(model_file_bytes(f) % ALIGNMENT_DEFAULT, 0, "the last tensor is padded too");
    model_file_close(f);
}

Test(formats, own_dtypes_agree_with_the_table_of_all_types) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const struct dtype_row *row = dtype_row((enum dtype)i);
        const struct ggml_type *t = ggml_type_by_id(row->gguf_type);
        cr_assert(t && !strcmp(t->name, row->name), "%s", row->name);
        cr_assert(t->block_weights == row->block_weights && t->block_bytes == row->block_bytes,
                  "%s", row->name);
    }
}

Test(formats, types_we_do_not_multiply_are_listed) {
    static const struct {
        uint32_t id;
        const char *name;
        uint64_t cols, bytes;
    } types[] = {{9, "Q8_1", 32, 36},   {16, "IQ2_XXS", 256, 66}, {21, "IQ3_S", 256, 110},
                 {24, "I8", 1, 1},      {28, "F64", 1, 8},        {34, "TQ1_0", 256, 54},
                 {42, "Q2_0", 64, 18}};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct text t = {0};
        hand_header(&t, 1, 0);
        hand_tensor(&t, "w", types[i].id, 0, 1, &types[i].cols);
        hostile_pad(&t, 32);
        for (uint64_t k = 0; k < types[i].bytes; k++) hostile_int(&t, k, 1);
        struct err err;
        void *copy;
        struct model_file *f = hand_open(t.data, t.len, &copy, &err);
        cr_assert(f, "%s: %s", types[i].name, err.text);
        const struct file_tensor *w = model_file_tensor(f, "w");
        cr_assert(w && w->dtype == DTYPE_COUNT && w->bytes == 0 &&
                  !strcmp(w->type_name, types[i].name));
        model_file_close(f);
        free(copy);
        t.len--;
        hand_refused_and_freed(t, "ends 1 bytes before the end of tensor 0 'w'");
    }
}

static void count_key(void *arg, const char *key, const char *value) {
    struct text *t = arg;
    text_fmt(t, "%s=%s\n", key, value);
}

Test(formats, keys_are_listed_in_file_order_and_printable) {
    struct text t = {0}, seen = {0};
    hand_header(&t, 0, 4);
    hand_key(&t, "z", GGUF_TEXT);
    hostile_text(&t, "esc \x1b[31m bad \xff\xc0 c1 \xc2\x9b good \xe2\x82\xac");
    hand_key(&t, "a", GGUF_ARRAY);
    hostile_int(&t, GGUF_TEXT, 4);
    hostile_int(&t, 2, 8);
    hostile_text(&t, "x");
    hostile_text(&t, "y");
    hand_key(&t, "m", GGUF_BOOL);
    hostile_int(&t, 1, 1);
    hand_key(&t, "u", GGUF_U64);
    hostile_int(&t, UINT64_MAX, 8);
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    meta_each(f, count_key, &seen);
    cr_assert_str_eq(seen.data, "z=esc ?[31m bad ?? c1 ?? good \xe2\x82\xac\na=[2 "
                                "texts]\nm=true\nu=18446744073709551615\n");
    model_file_close(f);
    free(copy);
    text_free(&t);
    text_free(&seen);
}

Test(formats, a_long_text_is_cut_between_characters) {
    char buf[20];
    span_shown(
        (struct span){
            "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac",
            21},
        buf, sizeof buf);
    cr_assert_str_eq(buf, "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac...");
    span_shown((struct span){"0123456789abcde", 15}, buf, sizeof buf);
    cr_assert_str_eq(buf, "0123456789abcde");
}

Test(formats, version_2_reads_like_3) {
    struct text t = hand_small_gguf();
    t.data[4] = 2;
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    cr_assert_str_eq(model_file_kind(f), "GGUF v2");
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(formats, a_file_without_tensors_is_fine) {
    struct text t = {0};
    hand_header(&t, 0, 0);
    hand_accepted_and_freed(t);
}

Test(formats, data_follow_the_alignment_of_the_file) {
    for (uint32_t align = 4; align <= 131072; align *= 2) {
        struct text t = {0};
        static const uint64_t one[] = {1};
        hand_header(&t, 2, 1);
        hand_key(&t, "general.alignment", GGUF_U32);
        hostile_int(&t, align, 4);
        hand_tensor(&t, "a", 0, 0, 1, one);
        hand_tensor(&t, "b", 0, align, 1, one);
        hostile_pad(&t, align);
        size_t data_at = t.len;
        hostile_int(&t, 0x11111111, 4);
        hostile_pad(&t, align);
        hostile_int(&t, 0x22222222, 4);
        if (align < ALIGNMENT_MIN || align > ALIGNMENT_MAX) {
            hand_refused_and_freed(t, "general.alignment is");
            continue;
        }
        struct err err;
        void *copy;
        struct model_file *f = hand_open(t.data, t.len, &copy, &err);
        cr_assert(f, "alignment %u: %s", align, err.text);
        cr_assert_eq((const unsigned char *)model_file_tensor(f, "b")->data,
                     (unsigned char *)copy + data_at + align);
        cr_assert(!memcmp(model_file_tensor(f, "b")->data, "\x22\x22\x22\x22", 4));
        model_file_close(f);
        free(copy);
        text_free(&t);
    }
}

Test(formats, tensors_may_stand_in_any_order_with_gaps) {
    struct text t = {0};
    static const uint64_t eight[] = {8};
    hand_header(&t, 2, 0);
    hand_tensor(&t, "later", 0, 96, 1, eight);
    hand_tensor(&t, "sooner", 0, 32, 1, eight);
    hostile_pad(&t, 32);
    for (int i = 0; i < 128; i++) hostile_int(&t, 0, 1);
    hand_accepted_and_freed(t);
}

// A million names with one prefix: the index has to stay at n log n, and memory near the size of
// the file.
Test(formats, a_hundred_thousand_tensors_and_keys_open_fast, .timeout = 30) {
    struct text t = {0};
    static const uint64_t eight[] = {8};
    const uint64_t n = 100000;
    char name[64];
    hand_header(&t, n, n);
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "a.rather.long.common.prefix.%llu",
                 (unsigned long long)(i * 7919 % n));
        hand_key(&t, name, GGUF_U8);
        hostile_int(&t, i, 1);
    }
    size_t tensors_at = t.len;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "a.rather.long.common.prefix.%07llu",
                 (unsigned long long)(n - 1 - i));
        hand_tensor(&t, name, 0, 32 * i, 1, eight);
    }
    hostile_pad(&t, 32);
    size_t data_at = t.len;
    mem_grow((void **)&t.data, &t.cap, data_at + 32 * n, 1, "tensor data");
    memset(t.data + data_at, 0, 32 * n);
    t.len = data_at + 32 * n;
    double start = time_now();
    hand_accepted(&t);
    double took = time_now() - start;
    cr_assert_lt(took, 8.0, "%g s for %llu names", took, (unsigned long long)n);
    memcpy(t.data + tensors_at + 8 + 28, "0000001",
           7); // the first becomes the name of the last but one
    hand_refused_and_freed(t, "is there twice");
}

// ---------------------------------------------------------------------------------------------------------------
// llama2.c.

static float first(const struct model_file *f, const char *name, int n_dims, int64_t rows,
                   int64_t cols) {
    const struct file_tensor *t = model_file_tensor(f, name);
    cr_assert(t, "no tensor %s", name);
    cr_assert(t->dtype == DTYPE_F32 && t->n_dims == n_dims && t->size[0] == rows, "%s", name);
    cr_assert(n_dims == 1 || t->size[1] == cols, "%s", name);
    cr_assert_eq(t->bytes, (size_t)(rows * (n_dims == 1 ? 1 : cols)) * 4, "%s", name);
    float x;
    memcpy(&x, t->data, sizeof x);
    return x;
}

Test(formats, llama2c_appears_as_gguf_llama, .fini = hand_cleanup) {
    for (int shared = 0; shared < 2; shared++) {
        struct text t = hand_small_bin(shared);
        struct err err;
        hand_write(hand_path("tiny.bin"), t.data, t.len);
        struct model_file *f = model_file_open(hand_path("tiny.bin"), &err);
        cr_assert(f, "%s", err.text);
        cr_assert_str_eq(model_file_kind(f), "llama2.c v0");
        struct span s;
        cr_assert(meta_text(f, "general.architecture", true, &s, &err) && span_is(s, "llama"));
        cr_assert(meta_text(f, "general.name", true, &s, &err) && span_is(s, "tiny.bin"));
        static const struct {
            const char *key;
            int64_t x;
        } keys[] = {{"llama.embedding_length", 8},
                    {"llama.feed_forward_length", 12},
                    {"llama.block_count", 2},
                    {"llama.attention.head_count", 4},
                    {"llama.attention.head_count_kv", 2},
                    {"llama.vocab_size", 5},
                    {"llama.context_length", 3},
                    {"llama.rope.dimension_count", 2}};
        for (size_t i = 0; i < COUNT_OF(keys); i++) {
            int64_t x = 0;
            cr_assert(meta_int(f, keys[i].key, true, keys[i].x, keys[i].x, &x, &err), "%s",
                      err.text);
        }
        double d = 0;
        cr_assert(meta_real(f, "llama.attention.layer_norm_rms_epsilon", true, 0, 1, &d, &err) &&
                  d == (double)1e-5f);
        cr_assert(meta_real(f, "llama.rope.freq_base", true, 0, 1e9, &d, &err) && d == 10000);
        // Float k holds k, so the first value of a tensor is its place: parts in file order, layers
        // inside a part.
        static const struct {
            const char *name;
            int n_dims;
            int64_t rows, cols;
            float at;
        } places[] = {
            {"token_embd.weight", 2, 5, 8, 0},        {"blk.0.attn_norm.weight", 1, 8, 0, 40},
            {"blk.1.attn_norm.weight", 1, 8, 0, 48},  {"blk.0.attn_q.weight", 2, 8, 8, 56},
            {"blk.1.attn_q.weight", 2, 8, 8, 120},    {"blk.1.attn_k.weight", 2, 4, 8, 216},
            {"blk.0.attn_v.weight", 2, 4, 8, 248},    {"blk.1.attn_output.weight", 2, 8, 8, 376},
            {"blk.1.ffn_norm.weight", 1, 8, 0, 448},  {"blk.1.ffn_gate.weight", 2, 12, 8, 552},
            {"blk.1.ffn_down.weight", 2, 8, 12, 744}, {"blk.1.ffn_up.weight", 2, 12, 8, 936},
            {"output_norm.weight", 1, 8, 0, 1032},
        };
        for (size_t i = 0; i < COUNT_OF(places); i++)
            cr_assert_eq(first(f, places[i].name, places[i].n_dims, places[i].rows, places[i].cols),
                         places[i].at, "%s", places[i].name);
        if (shared)
            cr_assert_null(model_file_tensor(f, "output.weight"));
        else
            cr_assert_eq(first(f, "output.weight", 2, 5, 8), 1040 + 2 * 3);
        cr_assert_eq(model_file_tensor_count(f), (size_t)(2 * 9 + 2 + !shared));
        cr_assert(!model_file_seal(f, &err) && strstr(err.text, "no seal"));
        model_file_close(f);
        text_free(&t);
    }
}

Test(formats, llama2c_of_another_size_is_refused) {
    for (int shared = 0; shared < 2; shared++) {
        struct text t = hand_small_bin(shared);
        hostile_int(&t, 0, 4);
        hand_refused(&t, "something else or damaged");
        t.len -= 5;
        hand_refused(&t, "truncated");
        text_free(&t);
    }
}

Test(formats, llama2c_with_numbers_out_of_range_is_no_model) {
    static const struct {
        size_t field;
        int32_t x;
    } bad[] = {{0, 0}, {0, -8}, {0, 9}, {1, 0},  {2, 0}, {2, 1 << 20},   {3, 0}, {3, 3},
               {3, 8}, {4, 0},  {4, 3}, {4, -2}, {5, 0}, {5, INT32_MIN}, {6, 0}, {6, INT32_MAX}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = hand_small_bin(true);
        for (size_t k = 0; k < 4; k++)
            t.data[4 * bad[i].field + k] = (char)(unsigned char)((uint32_t)bad[i].x >> (8 * k));
        hand_refused_and_freed(t, "no model file that this program knows");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Files that are something else.

Test(formats, files_passed_by_mistake_are_named) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *why;
    } files[] = {
        {"", 0, "is empty"},
        {"GG", 2, "ends after 2 bytes"},
        {"G", 1, "ends after 1 bytes"},
        {"hello", 5, "only 5 bytes"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", 64,
         "git-LFS pointer"},
        {"<!DOCTYPE html><html>", 21, "web page"},
        {"\xef\xbb\xbf \n<HTML lang=en>", 19, "web page"},
        {"<?xml version=\"1.0\"?><Error>", 28, "web page"},
        {"PK\3\4aaaaaaaaaaaa", 16, "zip archive"},
        {"\x80\2}q\0aaaaaaaa", 13, "pickle"},
        {"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", 27, "safetensors"},
        {"{\"architectures\": []}", 21, "JSON"},
        {"24ka\1\0\0\0aaaaaaaa", 16, "version 1 or 2"},
        {"tjgg\1\0\0\0aaaaaaaa", 16, "before GGUF"},
        {"\x1f\x8b\x08\0\0\0\0\0", 8, "gzip"},
        {"GGUF\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "GGUF version 1"},
        {"GGUF\0\0\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "big-endian"},
        {"GGUF\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "GGUF version 4, expected 2 or 3"},
        {"GGUF\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "GGUF version 0"},
        {"Once upon a time, there was", 27, "4f 6e 63 65"},
    };
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        struct text t = {0};
        text_add(&t, files[i].bytes, files[i].n);
        hand_refused_and_freed(t, files[i].why);
    }
}

Test(formats, folders_and_pipes_and_absent_files_are_refused, .fini = hand_cleanup, .timeout = 10) {
    struct err err = {0};
    cr_assert(!model_file_open(hand_path("absent"), &err) && err.text[0]);
    cr_assert(!model_file_open(hand_path(""), &err) && err.text[0]);
    cr_assert_eq(mkfifo(hand_path("pipe"), 0600), 0);
    err.text[0] = 0;
    cr_assert(!model_file_open(hand_path("pipe"), &err) && err.text[0]);
    hand_write(hand_path("empty"), "", 0);
    cr_assert(!model_file_open(hand_path("empty"), &err) && strstr(err.text, "is empty"));
    cr_assert(!model_file_open(hand_path("absent"), NULL));
    model_file_close(NULL);
}

// ---------------------------------------------------------------------------------------------------------------
// The writer when things go wrong.

Test(writer, a_failed_write_leaves_the_old_file_alone, .fini = hand_cleanup) {
    struct text whole = hand_sample(true);
    const char *path = hand_path("model.gguf");
    hand_write(path, "old", 3);
    size_t failures = 0;
    for (uint64_t at = 1; at < whole.len; at += at < 64 ? 1 : 37) {
        struct err err = {0};
        file_out_fail_at(at);
        bool good = hand_write_sample(hand_path("model.gguf"), true, &err);
        file_out_fail_at(0);
        cr_assert(!good, "byte %llu of %zu failed, yet commit was content", (unsigned long long)at,
                  whole.len);
        cr_assert(strstr(err.text, "model.gguf") && strlen(err.text) > 20, "'%s'", err.text);
        struct text left = hand_read(hand_path("model.gguf"));
        cr_assert(left.len == 3 && !memcmp(left.data, "old", 3));
        text_free(&left);
        failures++;
    }
    cr_assert_gt(failures, 50);
    struct file_list list;
    struct err err;
    cr_assert(file_list_open(&list, hand_path(""), &err) && list.count == 2,
              "a temporary file is left behind");
    file_list_free(&list);
    cr_assert(hand_write_sample(hand_path("model.gguf"), true, &err), "%s", err.text);
    struct text now = hand_read(hand_path("model.gguf"));
    cr_assert(now.len == whole.len && !memcmp(now.data, whole.data, whole.len),
              "the same calls give the same bytes");
    text_free(&now);
    text_free(&whole);
}

Test(writer, a_folder_that_is_not_there_fails_at_open) {
    struct err err = {0};
    cr_assert_null(gguf_out_open("/nonexistent/folder/model.gguf", &err));
    cr_assert(err.text[0]);
}

Test(writer, abort_leaves_nothing, .fini = hand_cleanup) {
    struct err err;
    struct gguf_out *o = gguf_out_open(hand_path("x.gguf"), &err);
    gguf_out_u32(o, "k", 1);
    gguf_out_abort(o);
    gguf_out_abort(NULL);
    struct file_list list;
    cr_assert(file_list_open(&list, hand_path(""), &err) && list.count == 0);
    file_list_free(&list);
}

// Each problem of content is told by commit, whatever is called after it.
static void commit_refuses(struct gguf_out *o, const char *why) {
    struct err err = {0};
    gguf_out_data(o, "later calls do nothing", 22);
    cr_assert(!gguf_out_commit(o, &err) && strstr(err.text, why), "expected '%s' in '%s'", why,
              err.text);
    cr_assert(!file_exists(hand_path("x.gguf")));
}

Test(writer, bad_content_is_told_by_commit, .fini = hand_cleanup) {
    static const int64_t eight[4] = {8}, odd[4] = {2, 33}, none[4] = {0}, huge[4] = {INT64_MAX, 2};
    struct err err;
    char long_name[70] = {0};
    memset(long_name, 'x', 65);
    struct {
        const char *name;
        enum dtype dtype;
        int dims;
        const int64_t *size;
        const char *why;
    } bad[] = {{"", DTYPE_F32, 1, eight, "is empty"},
               {long_name, DTYPE_F32, 1, eight, "longer than 64"},
               {"a\nb", DTYPE_F32, 1, eight, "control character"},
               {"w", DTYPE_Q8_0, 2, odd, "no multiple of the 32"},
               {"w", DTYPE_F32, 1, none, "dimension 0 is 0"},
               {"w", DTYPE_F32, 2, huge, "dimension 0 is"}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct gguf_out *o = gguf_out_open(hand_path("x.gguf"), &err);
        gguf_out_tensor(o, bad[i].name, bad[i].dtype, bad[i].dims, bad[i].size);
        gguf_out_tensor(o, "fine", DTYPE_F32, 1, eight);
        if (i % 2) gguf_out_seal(o);
        commit_refuses(o, bad[i].why);
    }
    struct gguf_out *o = gguf_out_open(hand_path("x.gguf"), &err);
    gguf_out_u32(o, "k", 1);
    gguf_out_bool(o, "k", true);
    commit_refuses(o, "key 'k' is written twice");
    o = gguf_out_open(hand_path("x.gguf"), &err);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    commit_refuses(o, "tensor 'w' is written twice");
    o = gguf_out_open(hand_path("x.gguf"), &err);
    gguf_out_tensor(o, "lehr.seal", DTYPE_F32, 1, eight);
    gguf_out_seal(o);
    commit_refuses(o, "tensor 'lehr.seal' is written twice");
}

static struct gguf_out *with_tensor(void) {
    static const int64_t eight[4] = {8};
    struct err err;
    struct gguf_out *o = gguf_out_open(hand_path("x.gguf"), &err);
    cr_assert(o, "%s", err.text);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    hand_cleanup(); // the file stays open without a name: a test that ends in an abort runs no
                    // .fini
    return o;
}

Test(writer, a_key_after_a_tensor_is_a_bug, .signal = SIGABRT) {
    gguf_out_u32(with_tensor(), "k", 1);
}
Test(writer, data_past_a_tensor_is_a_bug, .signal = SIGABRT) {
    static const char bytes[33];
    gguf_out_data(with_tensor(), bytes, sizeof bytes);
}
Test(writer, too_little_data_is_a_bug, .signal = SIGABRT) {
    struct err err;
    struct gguf_out *o = with_tensor();
    gguf_out_data(o, "short", 5);
    if (gguf_out_commit(o, &err)) cr_log_error("committed");
}
Test(writer, a_tensor_after_the_seal_is_a_bug, .signal = SIGABRT) {
    static const int64_t eight[4] = {8};
    struct gguf_out *o = with_tensor();
    gguf_out_seal(o);
    gguf_out_tensor(o, "late", DTYPE_F32, 1, eight);
}
Test(writer, a_seal_after_data_is_a_bug, .signal = SIGABRT) {
    struct gguf_out *o = with_tensor();
    gguf_out_data(o, "1234", 4);
    gguf_out_seal(o);
}

Test(writer, a_file_of_keys_alone_is_written, .fini = hand_cleanup) {
    struct err err;
    for (int seal = 0; seal < 2; seal++) {
        struct gguf_out *o = gguf_out_open(hand_path("k.gguf"), &err);
        gguf_out_text(o, "general.architecture", "none", 4);
        if (seal) gguf_out_seal(o);
        cr_assert(gguf_out_commit(o, &err), "%s", err.text);
        struct model_file *f = model_file_open(hand_path("k.gguf"), &err);
        cr_assert(f, "%s", err.text);
        cr_assert_eq(model_file_seal(f, &err), (bool)seal);
        model_file_close(f);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The seal.

Test(seal, a_whole_file_is_whole_and_an_unsealed_one_says_so, .fini = hand_cleanup) {
    struct err err;
    for (int sealed = 0; sealed < 2; sealed++) {
        cr_assert(hand_write_sample(hand_path("s.gguf"), sealed, &err), "%s", err.text);
        struct model_file *f = model_file_open(hand_path("s.gguf"), &err);
        cr_assert(f, "%s", err.text);
        bool whole = model_file_seal(f, &err);
        cr_assert_eq(whole, (bool)sealed, "%s", err.text);
        cr_assert(sealed || strstr(err.text, "has no seal"), "%s", err.text);
        if (sealed) cr_assert_eq(model_file_tensor_at(f, DTYPE_COUNT)->dtype, DTYPE_I32);
        model_file_close(f);
    }
}

// Three tensors, the middle one over several seal pieces, written in pieces of `step` bytes.
static struct text sealed_large(size_t step) {
    const int64_t small[4] = {3}, large[4] = {50, 1000};
    struct err err;
    struct gguf_out *o = gguf_out_open(hand_path("l.gguf"), &err);
    cr_assert(o, "%s", err.text);
    gguf_out_tensor(o, "a", DTYPE_F32, 1, small);
    gguf_out_tensor(o, "b", DTYPE_F32, 2, large);
    gguf_out_tensor(o, "c", DTYPE_F32, 1, small);
    gguf_out_seal(o);
    unsigned char *bytes = malloc(200000);
    hand_fill(bytes, 200000, 9);
    gguf_out_data(o, bytes, 12);
    for (size_t at = 0; at < 200000; at += step)
        gguf_out_data(o, bytes + at, step < 200000 - at ? step : 200000 - at);
    gguf_out_data(o, bytes, 12);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
    free(bytes);
    return hand_read(hand_path("l.gguf"));
}

Test(seal, does_not_depend_on_how_data_arrived, .fini = hand_cleanup) {
    static const size_t steps[] = {200000, 65536, 65535, 65537, 1000, 100000};
    struct text whole = sealed_large(200000);
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        struct text t = sealed_large(steps[i]);
        cr_assert(t.len == whole.len && !memcmp(t.data, whole.data, t.len), "pieces of %zu bytes",
                  steps[i]);
        text_free(&t);
    }
    text_free(&whole);
}

// True when the damage was noticed, by open or by the seal, with a sentence that holds `why` if it
// came from the seal.
static bool noticed(const struct text *t, const char *why) {
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t->data, t->len, &copy, &err);
    bool whole = f && model_file_seal(f, &err);
    bool said = whole || (strlen(err.text) > 20 && (!f || strstr(err.text, why)));
    if (!said) cr_log_error("expected '%s' in '%s'", why, err.text);
    model_file_close(f);
    free(copy);
    return !whole && said;
}

Test(seal, every_flipped_byte_is_noticed, .fini = hand_cleanup) {
    struct text t = hand_sample(true);
    for (size_t i = 0; i < t.len; i++) {
        t.data[i] = (char)((unsigned char)t.data[i] ^ (1u << i % 8));
        cr_assert(noticed(&t, ""), "byte %zu of %zu", i, t.len);
        t.data[i] = (char)((unsigned char)t.data[i] ^ (1u << i % 8));
    }
    cr_assert(!noticed(&t, ""), "the file is whole again");
    text_free(&t);
}

Test(seal, names_the_part_that_is_damaged, .fini = hand_cleanup) {
    struct text t = sealed_large(65536);
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    static const char *const names[] = {"a", "b", "c", "lehr.seal"};
    static const char *const why[] = {"tensor 'a' is damaged", "tensor 'b' is damaged",
                                      "tensor 'c' is damaged", "the seal itself"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const struct file_tensor *w = model_file_tensor(f, names[i]);
        size_t at = (size_t)((const char *)w->data - (const char *)copy) + w->bytes - 1;
        t.data[at] ^= 1;
        cr_assert(noticed(&t, why[i]));
        t.data[at] ^= 1;
    }
    size_t pad = (size_t)((const char *)model_file_tensor(f, "b")->data - (const char *)copy) - 1;
    t.data[pad] = 1;
    cr_assert(noticed(&t, "the bytes before tensor 'b'"));
    t.data[pad] = 0;
    size_t name = 24 + 8; // of the first tensor: any letter is a valid name
    t.data[name] = 'z';
    cr_assert(noticed(&t, "the header is damaged"));
    t.data[name] = 'a';
    t.data[t.len - 1] = 1; // padding behind the seal
    cr_assert(noticed(&t, "the end of the file is damaged"));
    t.data[t.len - 1] = 0;
    size_t whole = t.len;
    static const size_t lengths[] = {4, 32, 4096};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        while (t.len < whole + lengths[i]) hostile_int(&t, 0, 1);
        cr_assert(noticed(&t, "the end of the file is damaged"), "%zu bytes added", lengths[i]);
        t.len = whole;
    }
    t.len = whole - 1;
    cr_assert(noticed(&t, "the end of the file is damaged"));
    t.len = whole;
    cr_assert(!noticed(&t, ""));
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(seal, equal_tensors_that_swapped_sides_with_their_hashes_are_noticed, .fini = hand_cleanup) {
    struct text t = sealed_large(65536);
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    const unsigned char *seal = model_file_tensor(f, "lehr.seal")->data;
    cr_assert(memcmp(seal + 8, seal + 24, 8), "a and c hold the same bytes but are other parts");
    model_file_close(f);
    free(copy);
    text_free(&t);
}
