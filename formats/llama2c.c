// llama2.c .bin, version 0: seven integers and then every weight in fp32, grouped by kind rather
// than by layer.
//
//     i32 dim, hidden, layers, heads, kv heads, vocabulary (negative: the classifier is not
//     shared), context embedding [V,d] | attention norm L[d] | wq L[d,d] | wk, wv L[kv,d] | wo
//     L[d,d] | ffn norm L[d] | w1 gate L[h,d] | w2 down L[d,h] | w3 up L[h,d] | final norm [d] |
//     cos, sin of RoPE, unused | classifier [V,d]
//
// There is no magic, so the file must prove itself twice: all seven numbers in range and
// consistent, and a size that is to the byte what they imply. The model is presented as GGUF's
// "llama": RoPE pairs are adjacent there too, so the rows of wq and wk stay where they are, and
// every tensor is a pointer into the map.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 28

struct shape {
    int64_t dim, hidden, layers, heads, kv_heads, vocab, context;
    bool shared; // the classifier is the embedding
};

// Ranges beyond any model of this format, and small enough that no product below leaves 64 bits.
static bool read_shape(const unsigned char *p, size_t n, struct shape *s) {
    if (n < HEADER_BYTES) return false;
    int64_t x[7];
    for (size_t i = 0; i < 7; i++) x[i] = (int32_t)bytes_int(p + 4 * i, 4);
    *s = (struct shape){x[0], x[1], x[2], x[3], x[4], x[5] < 0 ? -x[5] : x[5], x[6], x[5] > 0};
    return s->dim >= 2 && s->dim <= 1 << 18 && s->hidden >= 1 && s->hidden <= 1 << 20 &&
           s->layers >= 1 && s->layers <= 1024 && s->heads >= 1 && s->dim % s->heads == 0 &&
           s->dim / s->heads % 2 == 0 && s->kv_heads >= 1 && s->heads % s->kv_heads == 0 &&
           s->vocab >= 1 && s->vocab <= 1 << 22 && s->context >= 1 && s->context <= 1 << 24;
}

bool llama2c_looks_like(const unsigned char *bytes, size_t n) {
    struct shape s;
    return read_shape(bytes, n, &s);
}

// The file in order. A part with a layer is there once per layer, one after the other; one without
// name is skipped.
struct part {
    const char *name;
    bool per_layer;
    int64_t rows, cols; // rows 0: a vector
};
#define PARTS 14

static size_t list_parts(const struct shape *s, struct part part[PARTS]) {
    int64_t d = s->dim, h = s->hidden, v = s->vocab, head = d / s->heads, kv = head * s->kv_heads;
    const struct part all[PARTS] = {
        {"token_embd.weight", false, v, d},
        {"attn_norm", true, 0, d},
        {"attn_q", true, d, d},
        {"attn_k", true, kv, d},
        {"attn_v", true, kv, d},
        {"attn_output", true, d, d},
        {"ffn_norm", true, 0, d},
        {"ffn_gate", true, h, d},
        {"ffn_down", true, d, h},
        {"ffn_up", true, h, d},
        {"output_norm.weight", false, 0, d},
        {NULL, false, s->context, head / 2}, // cos
        {NULL, false, s->context, head / 2}, // sin
        {"output.weight", false, v, d},
    };
    memcpy(part, all, sizeof all);
    return s->shared ? PARTS - 1 : PARTS;
}

static bool part_bytes(const struct part *p, size_t *bytes) {
    return size_mul((size_t)(p->rows ? p->rows : 1), (size_t)p->cols, bytes) &&
           size_mul(*bytes, sizeof(float), bytes);
}

static bool file_bytes(const struct shape *s, const struct part *part, size_t n_parts,
                       size_t *total) {
    *total = HEADER_BYTES;
    for (size_t i = 0; i < n_parts; i++) {
        size_t bytes;
        if (!part_bytes(&part[i], &bytes) ||
            !size_mul(bytes, part[i].per_layer ? (size_t)s->layers : 1, &bytes) ||
            !size_add(*total, bytes, total))
            return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Keys, written as GGUF would have them and then read by its reader.

static bool make_keys(struct model_file *f, const struct shape *s, struct err *err) {
    const char *slash = strrchr(f->map.path, '/'), *name = slash ? slash + 1 : f->map.path;
    struct key_text k = {.to = &f->made_up};
    key_text_add(&k, "general.architecture", "llama", 5);
    key_text_add(&k, "general.name", name, strlen(name));
    key_u32(&k, "general.file_type", 0); // all fp32
    key_u32(&k, "llama.context_length", s->context);
    key_u32(&k, "llama.embedding_length", s->dim);
    key_u32(&k, "llama.block_count", s->layers);
    key_u32(&k, "llama.feed_forward_length", s->hidden);
    key_u32(&k, "llama.attention.head_count", s->heads);
    key_u32(&k, "llama.attention.head_count_kv", s->kv_heads);
    key_f32(&k, "llama.attention.layer_norm_rms_epsilon", (double)1e-5f);
    key_f32(&k, "llama.rope.freq_base", 10000);
    key_u32(&k, "llama.rope.dimension_count", s->dim / s->heads);
    key_u32(&k, "llama.vocab_size", s->vocab);
    return key_text_read(&k, f, err);
}

// ---------------------------------------------------------------------------------------------------------------

static void add_tensor(struct model_file *f, const struct part *p, int64_t layer, size_t *at) {
    struct file_tensor *t = &f->tensors[f->n_tensors++];
    if (p->per_layer)
        snprintf(t->name, sizeof t->name, "blk.%" PRId64 ".%s.weight", layer, p->name);
    else
        snprintf(t->name, sizeof t->name, "%s", p->name);
    t->dtype = DTYPE_F32;
    t->type_name = dtype_row(DTYPE_F32)->name;
    t->n_dims = p->rows ? 2 : 1;
    t->size[0] = p->rows ? p->rows : p->cols;
    t->size[1] = p->rows ? p->cols : 0;
    t->data = f->map.data + *at;
    bool fits = part_bytes(p, &t->bytes);
    assert(fits && t->bytes <= f->map.size - *at);
    *at += t->bytes;
}

static void make_tensors(struct model_file *f, const struct shape *s, const struct part *part,
                         size_t n_parts) {
    f->tensors = mem_array((size_t)s->layers * n_parts, sizeof *f->tensors, "table of tensors");
    size_t at = HEADER_BYTES;
    for (size_t i = 0; i < n_parts; i++) {
        size_t bytes;
        bool fits = part_bytes(&part[i], &bytes);
        assert(fits);
        if (!part[i].name)
            at += bytes;
        else
            for (int64_t l = 0; l < (part[i].per_layer ? s->layers : 1); l++)
                add_tensor(f, &part[i], l, &at);
    }
    assert(at == f->map.size);
    size_t twice;
    bool unique = model_file_index(f, &twice);
    assert(unique);
    (void)unique;
}

bool llama2c_read(struct model_file *f, struct err *err) {
    struct shape s;
    bool plausible = read_shape(f->map.data, f->map.size, &s);
    assert(plausible);
    struct part part[PARTS];
    size_t n_parts = list_parts(&s, part), expected;
    if (!file_bytes(&s, part, n_parts, &expected)) expected = SIZE_MAX;
    if (expected != f->map.size)
        return err_set(err,
                       "begins like a llama2.c .bin (dim %" PRId64 ", %" PRId64 " layers, %" PRId64
                       " heads, vocabulary %" PRId64
                       ") but has %zu bytes where those numbers ask for %zu: %s",
                       s.dim, s.layers, s.heads, s.vocab, f->map.size, expected,
                       f->map.size < expected ? "it is truncated, download it again"
                                              : "it is something else or damaged");
    snprintf(f->kind, sizeof f->kind, "llama2.c v0");
    f->data_at = HEADER_BYTES;
    f->alignment = sizeof(float);
    if (!make_keys(f, &s, err)) return false;
    make_tensors(f, &s, part, n_parts);
    return true;
}
