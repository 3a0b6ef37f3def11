// hand: see hand.h.
#include "tests/hand.h"
#include "formats/internal.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------------
// Files and opening.

static char folder[256];

const char *hand_path(const char *name) {
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

void hand_cleanup(void) {
    struct file_list list;
    struct err err;
    if (!folder[0] || !file_list_open(&list, folder, &err)) return;
    for (size_t i = 0; i < list.count; i++) {
        const char *path = hand_path(list.names[i]);
        if (unlink(path)) rmdir(path);
    }
    file_list_free(&list);
    rmdir(folder);
}

void hand_write(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}

struct text hand_read(const char *path) {
    struct text t = {0};
    struct err err;
    cr_assert(file_read_all(path, (size_t)1 << 30, &t, &err), "%s", err.text);
    return t;
}

// Opens a copy of exactly n bytes; *copy is freed by the caller after closing.
struct model_file *hand_open(const void *bytes, size_t n, void **copy, struct err *err) {
    *copy = malloc(n ? n : 1);
    if (n) memcpy(*copy, bytes, n);
    *err = (struct err){0};
    return model_file_open_bytes(*copy, n, "test.gguf", err);
}

// The bytes are refused and the sentence holds `why`.
void hand_refused(const struct text *t, const char *why) {
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t->data, t->len, &copy, &err);
    cr_assert_null(f, "accepted, expected a refusal with '%s'", why);
    cr_assert(strstr(err.text, why), "expected '%s' in: %s", why, err.text);
    cr_assert(!strncmp(err.text, "test.gguf: ", 11), "the sentence names no file: %s", err.text);
    free(copy);
}

// The bytes open; every byte of them is walked.
void hand_accepted(const struct text *t) {
    struct err err;
    void *copy;
    struct model_file *f = hand_open(t->data, t->len, &copy, &err);
    cr_assert(f, "refused: %s", err.text);
    hostile_walk(f);
    model_file_close(f);
    free(copy);
}

// Hand-made GGUF. The pieces are separate so that a test can bend one and leave the rest right.
void hand_header(struct text *t, uint64_t tensors, uint64_t keys) {
    text_clear(t);
    text_add(t, "GGUF", 4);
    hostile_int(t, 3, 4);
    hostile_int(t, tensors, 8);
    hostile_int(t, keys, 8);
}

void hand_key(struct text *t, const char *key, uint32_t type) {
    hostile_text(t, key);
    hostile_int(t, type, 4);
}

void hand_tensor(struct text *t, const char *name, uint32_t type, uint64_t offset, int dims,
                 const uint64_t *size) {
    hostile_text(t, name);
    hostile_int(t, (uint64_t)dims, 4);
    for (int i = 0; i < dims; i++) hostile_int(t, size[i], 8); // innermost first
    hostile_int(t, type, 4);
    hostile_int(t, offset, 8);
}

// One F32 tensor with these sizes at this offset and 256 bytes of data: fine when they are {8, 8}
// and 0.
struct text hand_one_tensor(uint32_t type, uint64_t offset, int dims, const uint64_t *size) {
    struct text t = {0};
    hand_header(&t, 1, 0);
    hand_tensor(&t, "w", type, offset, dims, size);
    hostile_pad(&t, 32);
    for (int i = 0; i < 256; i++) hostile_int(&t, (uint64_t)i, 1);
    return t;
}

// One key whose value the caller appends.
struct text hand_one_key(const char *key, uint32_t type) {
    struct text t = {0};
    hand_header(&t, 0, 1);
    hand_key(&t, key, type);
    return t;
}

void hand_refused_and_freed(struct text t, const char *why) {
    hand_refused(&t, why);
    text_free(&t);
}

void hand_accepted_and_freed(struct text t) {
    hand_accepted(&t);
    text_free(&t);
}

const int64_t hand_shapes[DTYPE_COUNT][4] = {{64, 0, 0, 0}, {3, 64, 0, 0}, {2, 3, 32, 0},
                                             {2, 2, 1, 96}, {5, 32, 0, 0}, {7, 0, 0, 0},
                                             {3, 32, 0, 0}, {64, 0, 0, 0}, {2, 96, 0, 0},
                                             {256, 0, 0, 0}, {2, 256, 0, 0}, {512, 0, 0, 0},
                                             {2, 1, 256, 0}, {3, 256, 0, 0}, {3, 32, 0, 0},
                                             {256, 0, 0, 0}, {2, 64, 0, 0}};
const int hand_dims_of[DTYPE_COUNT] = {1, 2, 3, 4, 2, 1, 2, 1, 2, 1, 2, 1, 3, 2, 2, 1, 2};
const enum dtype hand_dtypes[DTYPE_COUNT] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16,
                                             DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_I32,
                                             DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
                                             DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K,
                                             DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL,
                                             DTYPE_IQ4_XS, DTYPE_MXFP4};
static_assert(COUNT_OF(hand_dtypes) == DTYPE_COUNT, "every dtype is written");

void hand_fill(unsigned char *p, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)rng_u64(7, stream, i);
}

// A small file with every key type that the writer has and every dtype. Ends on the alignment.
bool hand_write_sample(const char *path, bool seal, struct err *err) {
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
        snprintf(name, sizeof name, "t.%s", dtype_row(hand_dtypes[i])->name);
        gguf_out_tensor(o, name, hand_dtypes[i], hand_dims_of[i], hand_shapes[i]);
    }
    if (seal) gguf_out_seal(o);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        size_t n = 0;
        cr_assert(dtype_row_bytes(hand_dtypes[i], hand_shapes[i][hand_dims_of[i] - 1], &n));
        for (int d = 0; d < hand_dims_of[i] - 1; d++) n *= (size_t)hand_shapes[i][d];
        unsigned char *bytes = malloc(n);
        hand_fill(bytes, n, i);
        for (size_t at = 0, step; at < n; at += step) { // in pieces of 1, 2, 3, ... bytes
            step = at % 7 + 1 < n - at ? at % 7 + 1 : n - at;
            gguf_out_data(o, bytes + at, step);
        }
        free(bytes);
    }
    return gguf_out_commit(o, err);
}

struct text hand_sample(bool seal) {
    struct err err;
    const char *path = hand_path("sample.gguf");
    cr_assert(hand_write_sample(path, seal, &err), "%s", err.text);
    return hand_read(path);
}

// A small GGUF whose last byte belongs to the last tensor, with all that hostile_open likes to
// bend.
struct text hand_small_gguf(void) {
    struct text t = {0};
    static const uint64_t a[] = {32, 2}, b[] = {4, 3, 2}, c[] = {8};
    hand_header(&t, 3, 9);
    hand_key(&t, "general.architecture", GGUF_TEXT);
    hostile_text(&t, "llama");
    hand_key(&t, "general.alignment", GGUF_U32);
    hostile_int(&t, 32, 4);
    hand_key(&t, "llama.block_count", GGUF_U64);
    hostile_int(&t, 1, 8);
    hand_key(&t, "flag", GGUF_BOOL);
    hostile_int(&t, 1, 1);
    hand_key(&t, "eps", GGUF_F32);
    hostile_int(&t, 0x3727c5ac, 4);
    hand_key(&t, "tokenizer.ggml.tokens", GGUF_ARRAY);
    hostile_int(&t, GGUF_TEXT, 4);
    hostile_int(&t, 3, 8);
    hostile_text(&t, "<s>");
    hostile_text(&t, "");
    hostile_text(&t, "some longer token");
    hand_key(&t, "tokenizer.ggml.scores", GGUF_ARRAY);
    hostile_int(&t, GGUF_F32, 4);
    hostile_int(&t, 3, 8);
    for (int i = 0; i < 3; i++) hostile_int(&t, 0x3f800000, 4);
    hand_key(&t, "flags", GGUF_ARRAY);
    hostile_int(&t, GGUF_BOOL, 4);
    hostile_int(&t, 2, 8);
    hostile_int(&t, 0x0001, 2);
    hand_key(&t, "wide", GGUF_ARRAY);
    hostile_int(&t, GGUF_I64, 4);
    hostile_int(&t, 1, 8);
    hostile_int(&t, 5, 8);
    hand_tensor(&t, "token_embd.weight", 8, 0, 2, a);    // Q8_0: 68 bytes
    hand_tensor(&t, "blk.0.attn_q.weight", 0, 96, 3, b); // F32: 96 bytes
    hand_tensor(&t, "output_norm.weight", 0, 192, 1, c); // F32: 32 bytes
    hostile_pad(&t, 32);
    for (int i = 0; i < 224; i++) hostile_int(&t, (uint64_t)(i * 37), 1);
    return t;
}

// llama2.c v0: dim 8, hidden 12, 2 layers, 4 heads of 2, 2 kv heads, vocabulary 5, context 3. Float
// k holds k.
struct text hand_small_bin(bool shared) {
    static const int32_t header[] = {8, 12, 2, 4, 2, 5, 3};
    struct text t = {0};
    for (size_t i = 0; i < 7; i++)
        hostile_int(&t, (uint32_t)(i == 5 && !shared ? -header[i] : header[i]), 4);
    size_t floats =
        5 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 * 3) + 8 + 2 * 3 * 1 + (shared ? 0 : 5 * 8);
    for (size_t i = 0; i < floats; i++) {
        float x = (float)i;
        text_add(&t, (const char *)&x, sizeof x);
    }
    return t;
}

void hand_copy_tensors(struct gguf_out *to, const struct model_file *from) {
    for (size_t t = 0; t < model_file_tensor_count(from); t++) {
        const struct file_tensor *tensor = model_file_tensor_at(from, t);
        gguf_out_tensor(to, tensor->name, tensor->dtype, tensor->n_dims, tensor->size);
    }
    for (size_t t = 0; t < model_file_tensor_count(from); t++)
        gguf_out_data(to, model_file_tensor_at(from, t)->data, model_file_tensor_at(from, t)->bytes);
}
