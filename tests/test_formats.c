// Tests of formats/: what is written reads back, what is bad is refused with a sentence, and nothing a file says can crash,
// hang or swell the program. Files in memory are copied into an allocation of exactly their size, so that under the
// address sanitizer one byte read too far is found; the hostile variants come from tests/hostile.c.
#include "formats/formats.h"
#include "formats/internal.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------------
// Helpers.

static char folder[256];

static const char *in_folder(const char *name) {
    static char path[4][400];
    static int turn;
    if (!folder[0]) {
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/lehr-formats-XXXXXX", tmp ? tmp : "/tmp");
        cr_assert_not_null(mkdtemp(folder));
    }
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void remove_folder(void) {
    struct file_list list;
    struct err err;
    if (!folder[0] || !file_list_open(&list, folder, &err)) return;
    for (size_t i = 0; i < list.count; i++) {
        const char *path = in_folder(list.names[i]);
        if (unlink(path)) rmdir(path);
    }
    file_list_free(&list);
    rmdir(folder);
}

static void put_file(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}

static struct text get_file(const char *path) {
    struct text t = {0};
    struct err err;
    cr_assert(file_read_all(path, (size_t)1 << 30, &t, &err), "%s", err.text);
    return t;
}

// Opens a copy of exactly n bytes; *copy is freed by the caller after closing.
static struct model_file *open_exact(const void *bytes, size_t n, void **copy, struct err *err) {
    *copy = malloc(n ? n : 1);
    if (n) memcpy(*copy, bytes, n);
    *err = (struct err){0};
    return model_file_open_bytes(*copy, n, "test.gguf", err);
}

// The bytes are refused and the sentence holds `why`.
static void refused(const struct text *t, const char *why) {
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t->data, t->len, &copy, &err);
    cr_assert_null(f, "accepted, expected a refusal with '%s'", why);
    cr_assert(strstr(err.text, why), "expected '%s' in: %s", why, err.text);
    cr_assert(!strncmp(err.text, "test.gguf: ", 11), "the sentence names no file: %s", err.text);
    free(copy);
}

// The bytes open; every byte of them is walked.
static void accepted(const struct text *t) {
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t->data, t->len, &copy, &err);
    cr_assert(f, "refused: %s", err.text);
    hostile_walk(f);
    model_file_close(f);
    free(copy);
}

// Hand-made GGUF. The pieces are separate so that a test can bend one and leave the rest right.
static void put_header(struct text *t, uint64_t tensors, uint64_t keys) {
    text_clear(t);
    text_add(t, "GGUF", 4);
    hostile_int(t, 3, 4);
    hostile_int(t, tensors, 8);
    hostile_int(t, keys, 8);
}

static void put_key(struct text *t, const char *key, uint32_t type) {
    hostile_text(t, key);
    hostile_int(t, type, 4);
}

static void put_tensor(struct text *t, const char *name, uint32_t type, uint64_t offset, int dims, const uint64_t *size) {
    hostile_text(t, name);
    hostile_int(t, (uint64_t)dims, 4);
    for (int i = 0; i < dims; i++) hostile_int(t, size[i], 8); // innermost first
    hostile_int(t, type, 4);
    hostile_int(t, offset, 8);
}

// One F32 tensor with these sizes at this offset and 256 bytes of data: fine when they are {8, 8} and 0.
static struct text one_tensor(uint32_t type, uint64_t offset, int dims, const uint64_t *size) {
    struct text t = {0};
    put_header(&t, 1, 0);
    put_tensor(&t, "w", type, offset, dims, size);
    hostile_pad(&t, 32);
    for (int i = 0; i < 256; i++) hostile_int(&t, (uint64_t)i, 1);
    return t;
}

// One key whose value the caller appends.
static struct text one_key(const char *key, uint32_t type) {
    struct text t = {0};
    put_header(&t, 0, 1);
    put_key(&t, key, type);
    return t;
}

static void refused_and_freed(struct text t, const char *why) {
    refused(&t, why);
    text_free(&t);
}

static void accepted_and_freed(struct text t) {
    accepted(&t);
    text_free(&t);
}

static const int64_t shapes[][4] = {{64, 0, 0, 0}, {3, 64, 0, 0}, {2, 3, 32, 0}, {2, 2, 1, 96}, {5, 32, 0, 0}, {7, 0, 0, 0}};
static const int dims_of[] = {1, 2, 3, 4, 2, 1};
static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_I32};
static_assert(COUNT_OF(dtypes) == DTYPE_COUNT, "every dtype is written");

static void fill(unsigned char *p, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)rng_u64(7, stream, i);
}

// A small file with every key type that the writer has and every dtype. Ends on the alignment.
static bool write_sample(const char *path, bool seal, struct err *err) {
    static const float reals[] = {1.5f, -0.0f, FLT_MIN, 3e38f};
    static const int32_t integers[] = {0, -1, INT32_MIN, INT32_MAX};
    static const struct span words[] = {{"a", 1}, {"", 0}, {"\xe2\x96\x81of", 5}, {"nul\0in", 6}};
    struct gguf_out *o = gguf_out_open(path, err);
    if (!o) return false;
    gguf_out_text(o, "general.architecture", "llama", 5);
    gguf_out_u32(o, "u32", UINT32_MAX);
    gguf_out_u64(o, "u64", UINT64_MAX);
    gguf_out_i32(o, "i32", INT32_MIN);
    gguf_out_f32(o, "f32", 0.1f);
    gguf_out_f64(o, "f64", 0.1);
    gguf_out_bool(o, "yes", true);
    gguf_out_bool(o, "no", false);
    gguf_out_texts(o, "texts", words, COUNT_OF(words));
    gguf_out_texts(o, "no texts", NULL, 0);
    gguf_out_f32s(o, "reals", reals, COUNT_OF(reals));
    gguf_out_i32s(o, "integers", integers, COUNT_OF(integers));
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        char name[32];
        snprintf(name, sizeof name, "t.%s", dtype_row(dtypes[i])->name);
        gguf_out_tensor(o, name, dtypes[i], dims_of[i], shapes[i]);
    }
    if (seal) gguf_out_seal(o);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        size_t n = 0;
        cr_assert(dtype_row_bytes(dtypes[i], shapes[i][dims_of[i] - 1], &n));
        for (int d = 0; d < dims_of[i] - 1; d++) n *= (size_t)shapes[i][d];
        unsigned char *bytes = malloc(n);
        fill(bytes, n, i);
        for (size_t at = 0, step; at < n; at += step) { // in pieces of 1, 2, 3, ... bytes
            step = at % 7 + 1 < n - at ? at % 7 + 1 : n - at;
            gguf_out_data(o, bytes + at, step);
        }
        free(bytes);
    }
    return gguf_out_commit(o, err);
}

static struct text sample_bytes(bool seal) {
    struct err err;
    const char *path = in_folder("sample.gguf");
    cr_assert(write_sample(path, seal, &err), "%s", err.text);
    return get_file(path);
}

// A small GGUF whose last byte belongs to the last tensor, with all that hostile_open likes to bend.
static struct text small_gguf(void) {
    struct text t = {0};
    static const uint64_t a[] = {32, 2}, b[] = {4, 3, 2}, c[] = {8};
    put_header(&t, 3, 9);
    put_key(&t, "general.architecture", GGUF_TEXT);
    hostile_text(&t, "llama");
    put_key(&t, "general.alignment", GGUF_U32);
    hostile_int(&t, 32, 4);
    put_key(&t, "llama.block_count", GGUF_U64);
    hostile_int(&t, 1, 8);
    put_key(&t, "flag", GGUF_BOOL);
    hostile_int(&t, 1, 1);
    put_key(&t, "eps", GGUF_F32);
    hostile_int(&t, 0x3727c5ac, 4);
    put_key(&t, "tokenizer.ggml.tokens", GGUF_ARRAY);
    hostile_int(&t, GGUF_TEXT, 4);
    hostile_int(&t, 3, 8);
    hostile_text(&t, "<s>");
    hostile_text(&t, "");
    hostile_text(&t, "some longer token");
    put_key(&t, "tokenizer.ggml.scores", GGUF_ARRAY);
    hostile_int(&t, GGUF_F32, 4);
    hostile_int(&t, 3, 8);
    for (int i = 0; i < 3; i++) hostile_int(&t, 0x3f800000, 4);
    put_key(&t, "flags", GGUF_ARRAY);
    hostile_int(&t, GGUF_BOOL, 4);
    hostile_int(&t, 2, 8);
    hostile_int(&t, 0x0001, 2);
    put_key(&t, "wide", GGUF_ARRAY);
    hostile_int(&t, GGUF_I64, 4);
    hostile_int(&t, 1, 8);
    hostile_int(&t, 5, 8);
    put_tensor(&t, "token_embd.weight", 8, 0, 2, a);    // Q8_0: 68 bytes
    put_tensor(&t, "blk.0.attn_q.weight", 0, 96, 3, b); // F32: 96 bytes
    put_tensor(&t, "output_norm.weight", 0, 192, 1, c); // F32: 32 bytes
    hostile_pad(&t, 32);
    for (int i = 0; i < 224; i++) hostile_int(&t, (uint64_t)(i * 37), 1);
    return t;
}

// llama2.c v0: dim 8, hidden 12, 2 layers, 4 heads of 2, 2 kv heads, vocabulary 5, context 3. Float k holds k.
static struct text small_bin(bool shared) {
    static const int32_t header[] = {8, 12, 2, 4, 2, 5, 3};
    struct text t = {0};
    for (size_t i = 0; i < 7; i++) hostile_int(&t, (uint32_t)(i == 5 && !shared ? -header[i] : header[i]), 4);
    size_t floats = 5 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 * 3) + 8 + 2 * 3 * 1 + (shared ? 0 : 5 * 8);
    for (size_t i = 0; i < floats; i++) {
        float x = (float)i;
        text_add(&t, (const char *)&x, sizeof x);
    }
    return t;
}

// ---------------------------------------------------------------------------------------------------------------
// Writing and reading back.

Test(formats, every_key_type_reads_back, .fini = remove_folder) {
    struct err err;
    cr_assert(write_sample(in_folder("a.gguf"), false, &err), "%s", err.text);
    struct model_file *f = model_file_open(in_folder("a.gguf"), &err);
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
    cr_assert(meta_array_open(f, "no texts", META_TEXT, &a, &err) && a.count == 0 && !meta_next_text(&a, &s));
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
        {"u8", GGUF_U8, 200, 1, 200},         {"i8", GGUF_I8, 200, 1, -56},        {"u16", GGUF_U16, 65535, 2, 65535},
        {"i16", GGUF_I16, 65535, 2, -1},      {"i64", GGUF_I64, UINT64_MAX, 8, -1}, {"u64", GGUF_U64, 1u << 31, 8, 1ll << 31},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct text t = {0};
        put_header(&t, 0, 2);
        put_key(&t, cases[i].key, cases[i].type);
        hostile_int(&t, cases[i].bits, cases[i].width);
        put_key(&t, "array", GGUF_ARRAY);
        hostile_int(&t, cases[i].type, 4);
        hostile_int(&t, 2, 8);
        hostile_int(&t, 1, cases[i].width);
        hostile_int(&t, cases[i].bits, cases[i].width);
        struct err err;
        void *copy;
        struct model_file *f = open_exact(t.data, t.len, &copy, &err);
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

Test(formats, keys_of_wrong_type_or_range_or_absent_say_so, .fini = remove_folder) {
    struct text t = sample_bytes(false);
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    int64_t x = 42;
    double d = 42;
    bool b = true;
    struct span s;
    struct meta_array a;
    cr_assert(meta_int(f, "absent", false, 0, 1, &x, &err) && x == 42, "an optional key is left alone");
    cr_assert(!meta_int(f, "absent", true, 0, 1, &x, &err) && strstr(err.text, "'absent'"));
    cr_assert(!meta_int(f, "u32", false, 0, 1000, &x, &err) && strstr(err.text, "expected 0 to 1000") && x == 42);
    cr_assert(!meta_int(f, "u64", true, INT64_MIN, INT64_MAX, &x, &err), "2^64-1 is no int64_t");
    cr_assert(!meta_int(f, "f32", true, 0, 1, &x, &err) && strstr(err.text, "should be an integer but is a number"));
    cr_assert(!meta_real(f, "yes", true, 0, 1, &d, &err) && !meta_real(f, "f32", true, 1, 2, &d, &err) && d == 42);
    cr_assert(!meta_bool(f, "u32", true, &b, &err) && !meta_text(f, "u32", true, &s, &err));
    cr_assert(!meta_array_open(f, "u32", META_INT, &a, &err) && strstr(err.text, "should be an array"));
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

Test(formats, numbers_that_are_not_finite_are_refused) {
    static const uint64_t bits[] = {0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000};
    for (size_t i = 0; i < COUNT_OF(bits); i++) {
        struct text t = one_key("x", GGUF_F64);
        hostile_int(&t, bits[i], 8);
        struct err err;
        void *copy;
        struct model_file *f = open_exact(t.data, t.len, &copy, &err);
        double d = 1;
        cr_assert(f && !meta_real(f, "x", true, -INFINITY, INFINITY, &d, &err) && d == 1);
        model_file_close(f);
        free(copy);
        text_free(&t);
    }
}

Test(formats, every_dtype_and_rank_reads_back, .fini = remove_folder) {
    struct err err;
    cr_assert(write_sample(in_folder("a.gguf"), false, &err), "%s", err.text);
    struct model_file *f = model_file_open(in_folder("a.gguf"), &err);
    cr_assert(f, "%s", err.text);
    cr_assert_eq(model_file_tensor_count(f), DTYPE_COUNT);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        char name[32];
        snprintf(name, sizeof name, "t.%s", dtype_row(dtypes[i])->name);
        const struct file_tensor *t = model_file_tensor(f, name);
        cr_assert_eq(t, model_file_tensor_at(f, i));
        cr_assert(t->dtype == dtypes[i] && t->n_dims == dims_of[i]);
        for (int d = 0; d < t->n_dims; d++) cr_assert_eq(t->size[d], shapes[i][d]);
        cr_assert_str_eq(t->type_name, dtype_row(dtypes[i])->name);
        unsigned char *bytes = malloc(t->bytes);
        fill(bytes, t->bytes, i);
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
        cr_assert(t->block_weights == row->block_weights && t->block_bytes == row->block_bytes, "%s", row->name);
    }
}

Test(formats, types_we_do_not_multiply_are_listed) {
    static const struct {
        uint32_t id;
        const char *name;
        uint64_t cols, bytes;
    } types[] = {{3, "Q4_1", 32, 20}, {12, "Q4_K", 256, 144}, {14, "Q6_K", 256, 210}, {20, "IQ4_NL", 32, 18},
                 {24, "I8", 1, 1}, {28, "F64", 1, 8}, {39, "MXFP4", 32, 17}, {42, "Q2_0", 64, 18}};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct text t = {0};
        put_header(&t, 1, 0);
        put_tensor(&t, "w", types[i].id, 0, 1, &types[i].cols);
        hostile_pad(&t, 32);
        for (uint64_t k = 0; k < types[i].bytes; k++) hostile_int(&t, k, 1);
        struct err err;
        void *copy;
        struct model_file *f = open_exact(t.data, t.len, &copy, &err);
        cr_assert(f, "%s: %s", types[i].name, err.text);
        const struct file_tensor *w = model_file_tensor(f, "w");
        cr_assert(w && w->dtype == DTYPE_COUNT && w->bytes == 0 && !strcmp(w->type_name, types[i].name));
        model_file_close(f);
        free(copy);
        t.len--;
        refused_and_freed(t, "ends 1 bytes before the end of tensor 0 'w'");
    }
}

static void count_key(void *arg, const char *key, const char *value) {
    struct text *t = arg;
    text_fmt(t, "%s=%s\n", key, value);
}

Test(formats, keys_are_listed_in_file_order_and_printable) {
    struct text t = {0}, seen = {0};
    put_header(&t, 0, 4);
    put_key(&t, "z", GGUF_TEXT);
    hostile_text(&t, "esc \x1b[31m bad \xff\xc0 c1 \xc2\x9b good \xe2\x82\xac");
    put_key(&t, "a", GGUF_ARRAY);
    hostile_int(&t, GGUF_TEXT, 4);
    hostile_int(&t, 2, 8);
    hostile_text(&t, "x");
    hostile_text(&t, "y");
    put_key(&t, "m", GGUF_BOOL);
    hostile_int(&t, 1, 1);
    put_key(&t, "u", GGUF_U64);
    hostile_int(&t, UINT64_MAX, 8);
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    meta_each(f, count_key, &seen);
    cr_assert_str_eq(seen.data, "z=esc ?[31m bad ?? c1 ?? good \xe2\x82\xac\na=[2 texts]\nm=true\nu=18446744073709551615\n");
    model_file_close(f);
    free(copy);
    text_free(&t);
    text_free(&seen);
}

Test(formats, a_long_text_is_cut_between_characters) {
    char buf[20];
    span_shown((struct span){"\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac", 21}, buf, sizeof buf);
    cr_assert_str_eq(buf, "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac...");
    span_shown((struct span){"0123456789abcde", 15}, buf, sizeof buf);
    cr_assert_str_eq(buf, "0123456789abcde");
}

Test(formats, version_2_reads_like_3) {
    struct text t = small_gguf();
    t.data[4] = 2;
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    cr_assert_str_eq(model_file_kind(f), "GGUF v2");
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(formats, a_file_without_tensors_is_fine) {
    struct text t = {0};
    put_header(&t, 0, 0);
    accepted_and_freed(t);
}

Test(formats, data_follow_the_alignment_of_the_file) {
    for (uint32_t align = 4; align <= 131072; align *= 2) {
        struct text t = {0};
        static const uint64_t one[] = {1};
        put_header(&t, 2, 1);
        put_key(&t, "general.alignment", GGUF_U32);
        hostile_int(&t, align, 4);
        put_tensor(&t, "a", 0, 0, 1, one);
        put_tensor(&t, "b", 0, align, 1, one);
        hostile_pad(&t, align);
        size_t data_at = t.len;
        hostile_int(&t, 0x11111111, 4);
        hostile_pad(&t, align);
        hostile_int(&t, 0x22222222, 4);
        if (align < ALIGNMENT_MIN || align > ALIGNMENT_MAX) {
            refused_and_freed(t, "general.alignment is");
            continue;
        }
        struct err err;
        void *copy;
        struct model_file *f = open_exact(t.data, t.len, &copy, &err);
        cr_assert(f, "alignment %u: %s", align, err.text);
        cr_assert_eq((const unsigned char *)model_file_tensor(f, "b")->data, (unsigned char *)copy + data_at + align);
        cr_assert(!memcmp(model_file_tensor(f, "b")->data, "\x22\x22\x22\x22", 4));
        model_file_close(f);
        free(copy);
        text_free(&t);
    }
}

Test(formats, tensors_may_stand_in_any_order_with_gaps) {
    struct text t = {0};
    static const uint64_t eight[] = {8};
    put_header(&t, 2, 0);
    put_tensor(&t, "later", 0, 96, 1, eight);
    put_tensor(&t, "sooner", 0, 32, 1, eight);
    hostile_pad(&t, 32);
    for (int i = 0; i < 128; i++) hostile_int(&t, 0, 1);
    accepted_and_freed(t);
}

// A million names with one prefix: the index has to stay at n log n, and memory near the size of the file.
Test(formats, a_hundred_thousand_tensors_and_keys_open_fast, .timeout = 30) {
    struct text t = {0};
    static const uint64_t eight[] = {8};
    const uint64_t n = 100000;
    char name[64];
    put_header(&t, n, n);
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "a.rather.long.common.prefix.%llu", (unsigned long long)(i * 7919 % n));
        put_key(&t, name, GGUF_U8);
        hostile_int(&t, i, 1);
    }
    size_t tensors_at = t.len;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "a.rather.long.common.prefix.%07llu", (unsigned long long)(n - 1 - i));
        put_tensor(&t, name, 0, 32 * i, 1, eight);
    }
    hostile_pad(&t, 32);
    size_t data_at = t.len;
    mem_grow((void **)&t.data, &t.cap, data_at + 32 * n, 1, "tensor data");
    memset(t.data + data_at, 0, 32 * n);
    t.len = data_at + 32 * n;
    double start = time_now();
    accepted(&t);
    double took = time_now() - start;
    cr_assert_lt(took, 8.0, "%g s for %llu names", took, (unsigned long long)n);
    memcpy(t.data + tensors_at + 8 + 28, "0000001", 7); // the first becomes the name of the last but one
    refused_and_freed(t, "is there twice");
}

// ---------------------------------------------------------------------------------------------------------------
// llama2.c.

static float first(const struct model_file *f, const char *name, int n_dims, int64_t rows, int64_t cols) {
    const struct file_tensor *t = model_file_tensor(f, name);
    cr_assert(t, "no tensor %s", name);
    cr_assert(t->dtype == DTYPE_F32 && t->n_dims == n_dims && t->size[0] == rows, "%s", name);
    cr_assert(n_dims == 1 || t->size[1] == cols, "%s", name);
    cr_assert_eq(t->bytes, (size_t)(rows * (n_dims == 1 ? 1 : cols)) * 4, "%s", name);
    float x;
    memcpy(&x, t->data, sizeof x);
    return x;
}

Test(formats, llama2c_appears_as_gguf_llama, .fini = remove_folder) {
    for (int shared = 0; shared < 2; shared++) {
        struct text t = small_bin(shared);
        struct err err;
        put_file(in_folder("tiny.bin"), t.data, t.len);
        struct model_file *f = model_file_open(in_folder("tiny.bin"), &err);
        cr_assert(f, "%s", err.text);
        cr_assert_str_eq(model_file_kind(f), "llama2.c v0");
        struct span s;
        cr_assert(meta_text(f, "general.architecture", true, &s, &err) && span_is(s, "llama"));
        cr_assert(meta_text(f, "general.name", true, &s, &err) && span_is(s, "tiny.bin"));
        static const struct {
            const char *key;
            int64_t x;
        } keys[] = {{"llama.embedding_length", 8}, {"llama.feed_forward_length", 12}, {"llama.block_count", 2},
                    {"llama.attention.head_count", 4}, {"llama.attention.head_count_kv", 2}, {"llama.vocab_size", 5},
                    {"llama.context_length", 3}, {"llama.rope.dimension_count", 2}};
        for (size_t i = 0; i < COUNT_OF(keys); i++) {
            int64_t x = 0;
            cr_assert(meta_int(f, keys[i].key, true, keys[i].x, keys[i].x, &x, &err), "%s", err.text);
        }
        double d = 0;
        cr_assert(meta_real(f, "llama.attention.layer_norm_rms_epsilon", true, 0, 1, &d, &err) && d == (double)1e-5f);
        cr_assert(meta_real(f, "llama.rope.freq_base", true, 0, 1e9, &d, &err) && d == 10000);
        // Float k holds k, so the first value of a tensor is its place: parts in file order, layers inside a part.
        static const struct {
            const char *name;
            int n_dims;
            int64_t rows, cols;
            float at;
        } places[] = {
            {"token_embd.weight", 2, 5, 8, 0},         {"blk.0.attn_norm.weight", 1, 8, 0, 40},
            {"blk.1.attn_norm.weight", 1, 8, 0, 48},   {"blk.0.attn_q.weight", 2, 8, 8, 56},
            {"blk.1.attn_q.weight", 2, 8, 8, 120},     {"blk.1.attn_k.weight", 2, 4, 8, 216},
            {"blk.0.attn_v.weight", 2, 4, 8, 248},     {"blk.1.attn_output.weight", 2, 8, 8, 376},
            {"blk.1.ffn_norm.weight", 1, 8, 0, 448},   {"blk.1.ffn_gate.weight", 2, 12, 8, 552},
            {"blk.1.ffn_down.weight", 2, 8, 12, 744},  {"blk.1.ffn_up.weight", 2, 12, 8, 936},
            {"output_norm.weight", 1, 8, 0, 1032},
        };
        for (size_t i = 0; i < COUNT_OF(places); i++)
            cr_assert_eq(first(f, places[i].name, places[i].n_dims, places[i].rows, places[i].cols), places[i].at, "%s",
                         places[i].name);
        if (shared) cr_assert_null(model_file_tensor(f, "output.weight"));
        else cr_assert_eq(first(f, "output.weight", 2, 5, 8), 1040 + 2 * 3);
        cr_assert_eq(model_file_tensor_count(f), (size_t)(2 * 9 + 2 + !shared));
        cr_assert(!model_file_seal(f, &err) && strstr(err.text, "no seal"));
        model_file_close(f);
        text_free(&t);
    }
}

Test(formats, llama2c_of_another_size_is_refused) {
    for (int shared = 0; shared < 2; shared++) {
        struct text t = small_bin(shared);
        hostile_int(&t, 0, 4);
        refused(&t, "something else or damaged");
        t.len -= 5;
        refused(&t, "truncated");
        text_free(&t);
    }
}

Test(formats, llama2c_with_numbers_out_of_range_is_no_model) {
    static const struct {
        size_t field;
        int32_t x;
    } bad[] = {{0, 0}, {0, -8}, {0, 9}, {1, 0}, {2, 0}, {2, 1 << 20}, {3, 0}, {3, 3}, {3, 8}, {4, 0}, {4, 3}, {4, -2},
               {5, 0}, {5, INT32_MIN}, {6, 0}, {6, INT32_MAX}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = small_bin(true);
        for (size_t k = 0; k < 4; k++) t.data[4 * bad[i].field + k] = (char)(unsigned char)((uint32_t)bad[i].x >> (8 * k));
        refused_and_freed(t, "no model file that this program knows");
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
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", 64, "git-LFS pointer"},
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
        refused_and_freed(t, files[i].why);
    }
}

Test(formats, folders_and_pipes_and_absent_files_are_refused, .fini = remove_folder, .timeout = 10) {
    struct err err = {0};
    cr_assert(!model_file_open(in_folder("absent"), &err) && err.text[0]);
    cr_assert(!model_file_open(folder, &err) && err.text[0]);
    cr_assert_eq(mkfifo(in_folder("pipe"), 0600), 0);
    err.text[0] = 0;
    cr_assert(!model_file_open(in_folder("pipe"), &err) && err.text[0]);
    put_file(in_folder("empty"), "", 0);
    cr_assert(!model_file_open(in_folder("empty"), &err) && strstr(err.text, "is empty"));
    cr_assert(!model_file_open(in_folder("absent"), NULL));
    model_file_close(NULL);
}

// ---------------------------------------------------------------------------------------------------------------
// Hostile files.

static void every_cut_is_refused(struct text t) {
    accepted(&t);
    size_t whole = t.len;
    for (t.len = 0; t.len < whole; t.len++) {
        struct err err;
        void *copy;
        struct model_file *f = open_exact(t.data, t.len, &copy, &err);
        cr_assert(!f, "the first %zu of %zu bytes opened", t.len, whole);
        cr_assert(strlen(err.text) > 20, "cut after %zu of %zu bytes: '%s'", t.len, whole, err.text);
        free(copy);
    }
    text_free(&t);
}

Test(hostile, gguf_cut_at_every_byte_is_refused) { every_cut_is_refused(small_gguf()); }
Test(hostile, llama2c_cut_at_every_byte_is_refused) { every_cut_is_refused(small_bin(true)); }
Test(hostile, llama2c_unshared_cut_at_every_byte_is_refused) { every_cut_is_refused(small_bin(false)); }

Test(hostile, the_sentence_for_a_cut_says_how_much_is_missing) {
    struct text t = small_gguf();
    t.len -= 40;
    refused_and_freed(t, "ends 40 bytes before the end of tensor 2 'output_norm.weight'");
}

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif

// From here on the process may grow by this many bytes: a count from a file that is allocated ends the test. The address
// sanitizer reserves terabytes, so there only crashes and reads out of bounds are looked for.
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
        struct model_file *f = open_exact(bytes.data, bytes.len, &copy, &err);
        if (f) {
            opened++;
            hostile_walk(f);
        } else
            cr_assert(strlen(err.text) > 20, "variant %zu, %s: refused with '%s'", i, label, err.text);
        model_file_close(f);
        free(copy);
        cr_assert_lt(time_now() - start, 5.0, "variant %zu, %s: took too long", i, label);
    }
    cr_assert(opened > 0 && opened < n, "%zu of %zu variants opened: the generator no longer bends what it should", opened, n);
    hostile_close(&h);
    text_free(&bytes);
    text_free(&good);
}

Test(hostile, gguf_variants_open_whole_or_are_refused, .timeout = 60) { survive_variants(small_gguf(), 1, 3000, 3500); }
Test(hostile, llama2c_variants_open_whole_or_are_refused, .timeout = 60) { survive_variants(small_bin(true), 2, 1000, 1200); }
Test(hostile, sealed_sample_variants_open_whole_or_are_refused, .fini = remove_folder, .timeout = 60) {
    survive_variants(sample_bytes(true), 3, 1000, 2000);
}

// The CVE shapes of the peers, each by its number.

Test(hostile, cve_2024_23605_key_count_that_wraps) {
    static const uint64_t counts[] = {UINT64_MAX, 1ull << 63, (1ull << 63) + 1, 1ull << 60, UINT64_MAX / 40 + 1, (1u << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct text t = small_gguf();
        for (size_t k = 0; k < 8; k++) t.data[16 + k] = (char)(unsigned char)(counts[i] >> (8 * k));
        refused_and_freed(t, "keys, the most is");
    }
    struct text t = small_gguf();
    memcpy(t.data + 16, "\0\0\x10\0\0\0\0\0", 8); // 2^20 is allowed, but not in this few bytes
    refused_and_freed(t, "keys of at least 14 bytes, but only");
}

Test(hostile, cve_2024_21836_tensor_count_that_wraps) {
    static const uint64_t counts[] = {UINT64_MAX, 1ull << 63, UINT64_MAX / 144 + 1, (1u << 20) + 1};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct text t = small_gguf();
        for (size_t k = 0; k < 8; k++) t.data[8 + k] = (char)(unsigned char)(counts[i] >> (8 * k));
        refused_and_freed(t, "tensors, the most is");
    }
}

Test(hostile, cve_2024_21802_more_than_four_dimensions) {
    static const uint64_t eight[5] = {1, 1, 1, 8, 8};
    refused_and_freed(one_tensor(0, 0, 5, eight), "has 5 dimensions");
    refused_and_freed(one_tensor(0, 0, 0, eight), "has 0 dimensions");
    accepted_and_freed(one_tensor(0, 0, 4, eight + 1));
    struct text t = one_tensor(0, 0, 1, eight);
    memset(t.data + 24 + 8 + 1, 0xff, 4);
    refused_and_freed(t, "has 4294967295 dimensions");
}

Test(hostile, cve_2024_23496_text_length_beyond_the_file) {
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, 1ull << 63, 1ull << 32, 65536, 100};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        struct text key = {0}, value = one_key("k", GGUF_TEXT), name = {0}, item = one_key("k", GGUF_ARRAY);
        put_header(&key, 0, 1);
        hostile_int(&key, lengths[i], 8);
        hostile_int(&key, 0x6161616161616161, 8);
        refused_and_freed(key, "the file ends inside the name of a key");
        hostile_int(&value, lengths[i], 8);
        hostile_int(&value, 0, 8);
        refused_and_freed(value, "the file ends inside the text");
        put_header(&name, 1, 0);
        hostile_int(&name, lengths[i], 8);
        for (int k = 0; k < 5; k++) hostile_int(&name, 0x6161616161616161, 8);
        refused_and_freed(name, "the file ends inside the name of a tensor");
        hostile_int(&item, GGUF_TEXT, 4);
        hostile_int(&item, 1, 8);
        hostile_int(&item, lengths[i], 8);
        refused_and_freed(item, "the file ends inside the texts of an array");
    }
}

Test(hostile, cve_2024_21825_array_whose_bytes_wrap) {
    static const struct {
        uint32_t type;
        uint64_t count;
    } arrays[] = {{GGUF_F64, 1ull << 61}, {GGUF_U64, (1ull << 61) + 1}, {GGUF_F32, 1ull << 62}, {GGUF_U16, (1ull << 63) + 4},
                  {GGUF_TEXT, 1ull << 61}, {GGUF_TEXT, UINT64_MAX}, {GGUF_U8, UINT64_MAX}, {GGUF_U8, 17}, {GGUF_U64, 3}};
    for (size_t i = 0; i < COUNT_OF(arrays); i++) {
        struct text t = one_key("k", GGUF_ARRAY);
        hostile_int(&t, arrays[i].type, 4);
        hostile_int(&t, arrays[i].count, 8);
        hostile_int(&t, 0, 8);
        hostile_int(&t, 0, 8);
        refused_and_freed(t, "claims");
    }
}

Test(hostile, cve_2025_53630_sizes_whose_sum_wraps) {
    // Each tensor fits 64 bits, their padded sum does not.
    struct text t = {0};
    static const uint64_t big[] = {0x7fffffff, 0x7fffffff};
    put_header(&t, 5, 0);
    for (uint64_t i = 0; i < 5; i++) {
        char name[2] = {(char)('a' + i)};
        put_tensor(&t, name, 0, i * 0xfffffffc00000020, 2, big);
    }
    hostile_pad(&t, 32);
    for (int i = 0; i < 64; i++) hostile_int(&t, 0, 1);
    refused_and_freed(t, "tensor");
}

Test(hostile, cve_2026_27940_offset_plus_size_wraps) {
    static const uint64_t eight[] = {8, 8};
    static const uint64_t offsets[] = {UINT64_MAX - 31, UINT64_MAX - 255, UINT64_MAX - 319, 1ull << 63, INT64_MAX - 31};
    for (size_t i = 0; i < COUNT_OF(offsets); i++)
        refused_and_freed(one_tensor(0, offsets[i], 2, eight), i < 3 ? "beyond the end of any file" : "the file ends");
    accepted_and_freed(one_tensor(0, 0, 2, eight));
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
        refused_and_freed(one_tensor(0, 0, shape[i].dims, shape[i].size), shape[i].why);
    }
    refused_and_freed(one_tensor(0, 0, 4, shape[3].size), "multiply to more bytes");
    refused_and_freed(one_tensor(24, 0, 4, shape[3].size), "the file ends"); // I8: 2^62 bytes fit a size, not the file
}

Test(hostile, cve_2026_7482_tensor_beyond_the_file) {
    static const uint64_t eight[] = {8, 8}, nine[] = {8, 9};
    refused_and_freed(one_tensor(0, 32, 2, eight), "ends 32 bytes before the end of tensor 0 'w'");
    refused_and_freed(one_tensor(0, 0, 2, nine), "ends 32 bytes before the end of tensor 0 'w'");
    refused_and_freed(one_tensor(0, 1 << 20, 2, eight), "before the end of tensor 0 'w'");
}

Test(hostile, cve_2025_0317_sizes_of_zero) {
    static const uint64_t none[] = {0, 8}, null[] = {8, 0};
    refused_and_freed(one_tensor(0, 0, 2, none), "dimension 1 is 0");
    refused_and_freed(one_tensor(0, 0, 2, null), "dimension 0 is 0");
}

Test(hostile, unaligned_and_overlapping_tensors) {
    static const uint64_t four[] = {4}, sixteen[] = {16};
    for (uint64_t offset = 1; offset < 32; offset++)
        refused_and_freed(one_tensor(0, offset, 1, four), "no multiple of the alignment 32");
    for (uint64_t k = 0; k < 2; k++) {
        struct text t = {0};
        put_header(&t, 2, 0);
        put_tensor(&t, "long", 0, k ? 32 : 0, 1, sixteen);
        put_tensor(&t, "short", 0, k ? 64 : 0, 1, four);
        hostile_pad(&t, 32);
        for (int i = 0; i < 128; i++) hostile_int(&t, 0, 1);
        refused_and_freed(t, "overlap");
    }
}

Test(hostile, alignment_of_any_other_kind) {
    static const struct {
        uint32_t type;
        uint64_t x;
        size_t width;
    } bad[] = {{GGUF_U32, 0, 4}, {GGUF_U32, 1, 4}, {GGUF_U32, 33, 4}, {GGUF_U32, 48, 4}, {GGUF_U32, 1u << 31, 4}, {GGUF_U32, UINT32_MAX, 4},
               {GGUF_U64, 32, 8}, {GGUF_I32, 32, 4}, {GGUF_U8, 32, 1}, {GGUF_F32, 0x42000000, 4}, {GGUF_TEXT, 0, 8}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = one_key("general.alignment", bad[i].type);
        hostile_int(&t, bad[i].x, bad[i].width);
        refused_and_freed(t, "general.alignment");
    }
}

Test(hostile, rows_that_are_no_multiple_of_their_block) {
    static const uint64_t odd[] = {33}, tall[] = {16, 32}, k[] = {128};
    refused_and_freed(one_tensor(8, 0, 1, odd), "no multiple of the 32 in a block of Q8_0");
    refused_and_freed(one_tensor(2, 0, 2, tall), "no multiple of the 32 in a block of Q4_0");
    refused_and_freed(one_tensor(12, 0, 1, k), "no multiple of the 256 in a block of Q4_K");
}

Test(hostile, unknown_and_withdrawn_tensor_types) {
    static const uint64_t eight[] = {256};
    static const uint32_t ids[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(ids); i++) refused_and_freed(one_tensor(ids[i], 0, 1, eight), "unknown or was withdrawn");
}

Test(hostile, nested_arrays_and_unknown_value_types) {
    struct text nest = one_key("k", GGUF_ARRAY);
    for (int i = 0; i < 64; i++) {
        hostile_int(&nest, GGUF_ARRAY, 4);
        hostile_int(&nest, 1, 8);
    }
    refused_and_freed(nest, "array of arrays");
    static const uint32_t types[] = {13, 14, 255, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct text value = one_key("k", types[i]), item = one_key("k", GGUF_ARRAY);
        hostile_int(&value, 0, 8);
        refused_and_freed(value, "the known ones are 0 to 12");
        hostile_int(&item, types[i], 4);
        hostile_int(&item, 0, 8);
        refused_and_freed(item, "the known ones are 0 to 12");
    }
}

Test(hostile, names_twice_empty_or_unprintable) {
    static const char *const names[] = {"", "a\nb", "\x1b[2J", "\x7f", "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xc2\x85", "\xe2\x82"};
    static const uint64_t eight[] = {8};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct text key = one_key(names[i], GGUF_U32), tensor = {0};
        hostile_int(&key, 0, 4);
        refused_and_freed(key, "its name");
        put_header(&tensor, 1, 0);
        put_tensor(&tensor, names[i], 0, 0, 1, eight);
        hostile_pad(&tensor, 32);
        for (int k = 0; k < 32; k++) hostile_int(&tensor, 0, 1);
        refused_and_freed(tensor, "its name");
    }
    struct text t = one_key("k\0k", GGUF_U32); // NUL inside: written by hand, a C string ends there
    t.data[24] = 3;
    text_clear(&t);
    put_header(&t, 0, 1);
    hostile_int(&t, 3, 8);
    text_add(&t, "k\0k", 3);
    hostile_int(&t, GGUF_U8, 4);
    hostile_int(&t, 0, 1);
    refused_and_freed(t, "its name holds a control character");
    struct text twice = {0};
    put_header(&twice, 0, 3);
    for (int i = 0; i < 3; i++) {
        put_key(&twice, i == 1 ? "other" : "same", GGUF_U8);
        hostile_int(&twice, 0, 1);
    }
    refused_and_freed(twice, "key 'same' is there twice");
    struct text tensors = {0};
    put_header(&tensors, 2, 0);
    put_tensor(&tensors, "same", 0, 0, 1, eight);
    put_tensor(&tensors, "same", 0, 32, 1, eight);
    hostile_pad(&tensors, 32);
    for (int k = 0; k < 64; k++) hostile_int(&tensors, 0, 1);
    refused_and_freed(tensors, "tensor 'same' is there twice");
}

Test(hostile, names_of_the_longest_length_and_one_more) {
    static const uint64_t eight[] = {8};
    for (size_t n = 64; n <= 65; n++) {
        char name[66] = {0};
        memset(name, 'n', n);
        struct text t = {0};
        put_header(&t, 1, 0);
        put_tensor(&t, name, 0, 0, 1, eight);
        hostile_pad(&t, 32);
        for (int k = 0; k < 32; k++) hostile_int(&t, 0, 1);
        if (n == 64) accepted_and_freed(t);
        else refused_and_freed(t, "65 bytes long, the most is 64");
    }
    for (size_t n = 65535; n <= 65536; n++) {
        struct text t = {0};
        put_header(&t, 0, 1);
        hostile_int(&t, n, 8);
        for (size_t i = 0; i < n; i++) text_add(&t, "k", 1);
        hostile_int(&t, GGUF_U8, 4);
        hostile_int(&t, 0, 1);
        if (n == 65535) accepted_and_freed(t);
        else refused_and_freed(t, "65536 bytes long, the most is 65535");
    }
}

Test(hostile, bools_that_are_neither) {
    struct text one = one_key("b", GGUF_BOOL), many = one_key("b", GGUF_ARRAY);
    hostile_int(&one, 2, 1);
    refused_and_freed(one, "a bool is 2");
    hostile_int(&many, GGUF_BOOL, 4);
    hostile_int(&many, 3, 8);
    hostile_int(&many, 0xff0100, 3);
    refused_and_freed(many, "a bool is 255");
}

// ---------------------------------------------------------------------------------------------------------------
// The writer when things go wrong.

Test(writer, a_failed_write_leaves_the_old_file_alone, .fini = remove_folder) {
    struct text whole = sample_bytes(true);
    const char *path = in_folder("model.gguf");
    put_file(path, "old", 3);
    size_t failures = 0;
    for (uint64_t at = 1; at < whole.len; at += at < 64 ? 1 : 37) {
        struct err err = {0};
        file_out_fail_at(at);
        bool good = write_sample(in_folder("model.gguf"), true, &err);
        file_out_fail_at(0);
        cr_assert(!good, "byte %llu of %zu failed, yet commit was content", (unsigned long long)at, whole.len);
        cr_assert(strstr(err.text, "model.gguf") && strlen(err.text) > 20, "'%s'", err.text);
        struct text left = get_file(in_folder("model.gguf"));
        cr_assert(left.len == 3 && !memcmp(left.data, "old", 3));
        text_free(&left);
        failures++;
    }
    cr_assert_gt(failures, 50);
    struct file_list list;
    struct err err;
    cr_assert(file_list_open(&list, folder, &err) && list.count == 2, "a temporary file is left behind");
    file_list_free(&list);
    cr_assert(write_sample(in_folder("model.gguf"), true, &err), "%s", err.text);
    struct text now = get_file(in_folder("model.gguf"));
    cr_assert(now.len == whole.len && !memcmp(now.data, whole.data, whole.len), "the same calls give the same bytes");
    text_free(&now);
    text_free(&whole);
}

Test(writer, a_folder_that_is_not_there_fails_at_open) {
    struct err err = {0};
    cr_assert_null(gguf_out_open("/nonexistent/folder/model.gguf", &err));
    cr_assert(err.text[0]);
}

Test(writer, abort_leaves_nothing, .fini = remove_folder) {
    struct err err;
    struct gguf_out *o = gguf_out_open(in_folder("x.gguf"), &err);
    gguf_out_u32(o, "k", 1);
    gguf_out_abort(o);
    gguf_out_abort(NULL);
    struct file_list list;
    cr_assert(file_list_open(&list, folder, &err) && list.count == 0);
    file_list_free(&list);
}

// Each problem of content is told by commit, whatever is called after it.
static void commit_refuses(struct gguf_out *o, const char *why) {
    struct err err = {0};
    gguf_out_data(o, "later calls do nothing", 22);
    cr_assert(!gguf_out_commit(o, &err) && strstr(err.text, why), "expected '%s' in '%s'", why, err.text);
    cr_assert(!file_exists(in_folder("x.gguf")));
}

Test(writer, bad_content_is_told_by_commit, .fini = remove_folder) {
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
    } bad[] = {{"", DTYPE_F32, 1, eight, "is empty"}, {long_name, DTYPE_F32, 1, eight, "longer than 64"},
               {"a\nb", DTYPE_F32, 1, eight, "control character"}, {"w", DTYPE_Q8_0, 2, odd, "no multiple of the 32"},
               {"w", DTYPE_F32, 1, none, "dimension 0 is 0"}, {"w", DTYPE_F32, 2, huge, "dimension 0 is"}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct gguf_out *o = gguf_out_open(in_folder("x.gguf"), &err);
        gguf_out_tensor(o, bad[i].name, bad[i].dtype, bad[i].dims, bad[i].size);
        gguf_out_tensor(o, "fine", DTYPE_F32, 1, eight);
        if (i % 2) gguf_out_seal(o);
        commit_refuses(o, bad[i].why);
    }
    struct gguf_out *o = gguf_out_open(in_folder("x.gguf"), &err);
    gguf_out_u32(o, "k", 1);
    gguf_out_bool(o, "k", true);
    commit_refuses(o, "key 'k' is written twice");
    o = gguf_out_open(in_folder("x.gguf"), &err);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    commit_refuses(o, "tensor 'w' is written twice");
    o = gguf_out_open(in_folder("x.gguf"), &err);
    gguf_out_tensor(o, "lehr.seal", DTYPE_F32, 1, eight);
    gguf_out_seal(o);
    commit_refuses(o, "tensor 'lehr.seal' is written twice");
}

static struct gguf_out *with_tensor(void) {
    static const int64_t eight[4] = {8};
    struct err err;
    struct gguf_out *o = gguf_out_open(in_folder("x.gguf"), &err);
    cr_assert(o, "%s", err.text);
    gguf_out_tensor(o, "w", DTYPE_F32, 1, eight);
    remove_folder(); // the file stays open without a name: a test that ends in an abort runs no .fini
    return o;
}

Test(writer, a_key_after_a_tensor_is_a_bug, .signal = SIGABRT) { gguf_out_u32(with_tensor(), "k", 1); }
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

Test(writer, a_file_of_keys_alone_is_written, .fini = remove_folder) {
    struct err err;
    for (int seal = 0; seal < 2; seal++) {
        struct gguf_out *o = gguf_out_open(in_folder("k.gguf"), &err);
        gguf_out_text(o, "general.architecture", "none", 4);
        if (seal) gguf_out_seal(o);
        cr_assert(gguf_out_commit(o, &err), "%s", err.text);
        struct model_file *f = model_file_open(in_folder("k.gguf"), &err);
        cr_assert(f, "%s", err.text);
        cr_assert_eq(model_file_seal(f, &err), (bool)seal);
        model_file_close(f);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The seal.

Test(seal, a_whole_file_is_whole_and_an_unsealed_one_says_so, .fini = remove_folder) {
    struct err err;
    for (int sealed = 0; sealed < 2; sealed++) {
        cr_assert(write_sample(in_folder("s.gguf"), sealed, &err), "%s", err.text);
        struct model_file *f = model_file_open(in_folder("s.gguf"), &err);
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
    struct gguf_out *o = gguf_out_open(in_folder("l.gguf"), &err);
    cr_assert(o, "%s", err.text);
    gguf_out_tensor(o, "a", DTYPE_F32, 1, small);
    gguf_out_tensor(o, "b", DTYPE_F32, 2, large);
    gguf_out_tensor(o, "c", DTYPE_F32, 1, small);
    gguf_out_seal(o);
    unsigned char *bytes = malloc(200000);
    fill(bytes, 200000, 9);
    gguf_out_data(o, bytes, 12);
    for (size_t at = 0; at < 200000; at += step) gguf_out_data(o, bytes + at, step < 200000 - at ? step : 200000 - at);
    gguf_out_data(o, bytes, 12);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
    free(bytes);
    return get_file(in_folder("l.gguf"));
}

Test(seal, does_not_depend_on_how_data_arrived, .fini = remove_folder) {
    static const size_t steps[] = {200000, 65536, 65535, 65537, 1000, 100000};
    struct text whole = sealed_large(200000);
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        struct text t = sealed_large(steps[i]);
        cr_assert(t.len == whole.len && !memcmp(t.data, whole.data, t.len), "pieces of %zu bytes", steps[i]);
        text_free(&t);
    }
    text_free(&whole);
}

// True when the damage was noticed, by open or by the seal, with a sentence that holds `why` if it came from the seal.
static bool noticed(const struct text *t, const char *why) {
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t->data, t->len, &copy, &err);
    bool whole = f && model_file_seal(f, &err);
    bool said = whole || (strlen(err.text) > 20 && (!f || strstr(err.text, why)));
    if (!said) cr_log_error("expected '%s' in '%s'", why, err.text);
    model_file_close(f);
    free(copy);
    return !whole && said;
}

Test(seal, every_flipped_byte_is_noticed, .fini = remove_folder) {
    struct text t = sample_bytes(true);
    for (size_t i = 0; i < t.len; i++) {
        t.data[i] = (char)((unsigned char)t.data[i] ^ (1u << i % 8));
        cr_assert(noticed(&t, ""), "byte %zu of %zu", i, t.len);
        t.data[i] = (char)((unsigned char)t.data[i] ^ (1u << i % 8));
    }
    cr_assert(!noticed(&t, ""), "the file is whole again");
    text_free(&t);
}

Test(seal, names_the_part_that_is_damaged, .fini = remove_folder) {
    struct text t = sealed_large(65536);
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    static const char *const names[] = {"a", "b", "c", "lehr.seal"};
    static const char *const why[] = {"tensor 'a' is damaged", "tensor 'b' is damaged", "tensor 'c' is damaged", "the seal itself"};
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
    text_add(&t, "tail", 4);
    cr_assert(noticed(&t, "the end of the file is damaged"));
    t.len -= 4;
    cr_assert(!noticed(&t, ""));
    model_file_close(f);
    free(copy);
    text_free(&t);
}

Test(seal, equal_tensors_that_swapped_sides_with_their_hashes_are_noticed, .fini = remove_folder) {
    struct text t = sealed_large(65536);
    struct err err;
    void *copy;
    struct model_file *f = open_exact(t.data, t.len, &copy, &err);
    cr_assert(f, "%s", err.text);
    const unsigned char *seal = model_file_tensor(f, "lehr.seal")->data;
    cr_assert(memcmp(seal + 8, seal + 24, 8), "a and c hold the same bytes but are other parts");
    model_file_close(f);
    free(copy);
    text_free(&t);
}
