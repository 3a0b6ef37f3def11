// GGUF: the writer, and the seal that lets a checkpoint be checked byte for byte.
//
// Keys collect in memory as their final bytes, tensors as a list; the first data byte (or commit)
// closes the header and writes it. From then on data streams straight to the file in declared
// order, each tensor padded to the alignment, as llama.cpp expects: offsets without holes, padding
// behind the last tensor too. Nothing exists at the path until commit.
//
// The seal is a last tensor "lehr.seal" (I32, so that every GGUF reader can list it) of
// little-endian u64 hashes:
//     [0] header: every byte before the tensor data | [1..n] tensor i-1 | [n+1] the hashes before
//     it
// Data may arrive in any pieces, so hashes run over fixed pieces of SEAL_PIECE bytes and start from
// the number of the part: two tensors that swapped places are noticed. Padding is not hashed but
// must be zero, and the file must end with the seal's own padding: any flipped bit of a sealed
// file, and any lost or added byte, is found. What the seal does not do: protect against someone
// who wants to forge it.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SEAL_NAME "lehr.seal"
#define SEAL_PIECE 65536
#define HASH_BYTES 8

static size_t gap_after(uint64_t at, size_t alignment) {
    return (size_t)((alignment - at % alignment) % alignment);
}

// ---------------------------------------------------------------------------------------------------------------
// Hashing a part that arrives in pieces.

struct seal_hash {
    uint64_t hash;
    unsigned char *piece; // SEAL_PIECE bytes, what has not filled a piece yet
    size_t used;
};

static void seal_hash_begin(struct seal_hash *s, uint64_t part) {
    s->hash = part;
    s->used = 0;
}

static void seal_hash_add(struct seal_hash *s, const unsigned char *p, size_t n) {
    while (n > 0) {
        if (!s->used && n >= SEAL_PIECE) { // a whole piece needs no copy
            s->hash = hash_bytes(s->hash, p, SEAL_PIECE);
            p += SEAL_PIECE, n -= SEAL_PIECE;
            continue;
        }
        size_t take = n < SEAL_PIECE - s->used ? n : SEAL_PIECE - s->used;
        memcpy(s->piece + s->used, p, take);
        s->used += take, p += take, n -= take;
        if (s->used == SEAL_PIECE) {
            s->hash = hash_bytes(s->hash, s->piece, SEAL_PIECE);
            s->used = 0;
        }
    }
}

static uint64_t seal_hash_end(struct seal_hash *s) {
    return hash_bytes(s->hash, s->piece, s->used);
}

static uint64_t seal_hash_whole(struct seal_hash *s, uint64_t part, const unsigned char *p,
                                size_t n) {
    seal_hash_begin(s, part);
    seal_hash_add(s, p, n);
    return seal_hash_end(s);
}

// ---------------------------------------------------------------------------------------------------------------
// The header.

struct out_tensor {
    char name[TENSOR_NAME_MAX + 1];
    uint32_t type; // ggml id
    int n_dims;
    int64_t size[DIMS_MAX];
    uint64_t offset; // in the data section
    size_t bytes;
};

struct gguf_out {
    struct file_out *file;
    struct err err; // the first problem, kept until commit
    bool failed;
    struct text keys; // the bytes of all key-value pairs
    struct out_key {
        size_t at, n; // the name inside keys
    } * key;
    size_t n_keys, cap_keys;
    struct out_tensor *tensors;
    size_t n_tensors, cap_tensors;
    uint64_t data_bytes; // of all declared tensors with padding
    bool sealed, in_data;
    size_t now;       // tensor that gets the next byte
    size_t now_bytes; // what it has
    struct seal_hash hash;
    struct text seal; // hashes so far
};

// Keeps the first problem; the caller's next calls do nothing and commit tells it.
static void out_fail(struct gguf_out *o, const char *format, ...) {
    if (o->failed) return;
    o->failed = true;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err_set(&o->err, "cannot write the model: %s", text);
}

struct gguf_out *gguf_out_open(const char *path, struct err *err) {
    struct file_out *file = file_out_open(path, err);
    if (!file) return NULL;
    struct gguf_out *o = mem_alloc(sizeof *o, "model writer");
    o->file = file;
    o->hash.piece = mem_alloc(SEAL_PIECE, "seal buffer");
    return o;
}

static void out_free(struct gguf_out *o) {
    text_free(&o->keys);
    text_free(&o->seal);
    mem_free(o->hash.piece);
    mem_free(o->key);
    mem_free(o->tensors);
    mem_free(o);
}

void gguf_out_abort(struct gguf_out *o) {
    if (!o) return;
    file_out_abort(o->file);
    out_free(o);
}

static void put_key(struct gguf_out *o, const char *key, enum gguf_type type) {
    assert(!o->n_tensors && !o->in_data && "keys come before tensors");
    size_t n = strlen(key);
    assert(n <= KEY_BYTES_MAX && !name_problem((struct span){key, n}));
    mem_grow((void **)&o->key, &o->cap_keys, o->n_keys + 1, sizeof *o->key,
             "names of metadata keys");
    text_int(&o->keys, n, 8);
    o->key[o->n_keys++] = (struct out_key){o->keys.len, n};
    text_add(&o->keys, key, n);
    text_int(&o->keys, type, 4);
}

static uint64_t f32_bits(float x) {
    union {
        float f;
        uint32_t u;
    } v = {.f = x};
    return v.u;
}

static uint64_t f64_bits(double x) {
    union {
        double d;
        uint64_t u;
    } v = {.d = x};
    return v.u;
}

static void put_number(struct gguf_out *o, const char *key, enum gguf_type type, uint64_t bits) {
    put_key(o, key, type);
    text_int(&o->keys, bits, gguf_type_bytes(type));
}

void gguf_out_u32(struct gguf_out *o, const char *key, uint32_t x) {
    put_number(o, key, GGUF_U32, x);
}
void gguf_out_u64(struct gguf_out *o, const char *key, uint64_t x) {
    put_number(o, key, GGUF_U64, x);
}
void gguf_out_i32(struct gguf_out *o, const char *key, int32_t x) {
    put_number(o, key, GGUF_I32, (uint32_t)x);
}
void gguf_out_f32(struct gguf_out *o, const char *key, float x) {
    put_number(o, key, GGUF_F32, f32_bits(x));
}
void gguf_out_f64(struct gguf_out *o, const char *key, double x) {
    put_number(o, key, GGUF_F64, f64_bits(x));
}
void gguf_out_bool(struct gguf_out *o, const char *key, bool x) {
    put_number(o, key, GGUF_BOOL, x);
}

static void put_text(struct gguf_out *o, const char *bytes, size_t n) {
    if (n > TEXT_BYTES_MAX) {
        out_fail(o, "a text of %zu bytes is longer than the %" PRIu64 " that readers accept", n,
                 TEXT_BYTES_MAX);
        n = 0;
    }
    text_int(&o->keys, n, 8);
    text_add(&o->keys, bytes, n);
}

void gguf_out_text(struct gguf_out *o, const char *key, const char *bytes, size_t n) {
    put_key(o, key, GGUF_TEXT);
    put_text(o, bytes, n);
}

static void put_array(struct gguf_out *o, const char *key, enum gguf_type item, size_t n) {
    put_key(o, key, GGUF_ARRAY);
    text_int(&o->keys, item, 4);
    text_int(&o->keys, n, 8);
}

void gguf_out_texts(struct gguf_out *o, const char *key, const struct span *texts, size_t n) {
    put_array(o, key, GGUF_TEXT, n);
    for (size_t i = 0; i < n; i++) put_text(o, texts[i].p, texts[i].n);
}

void gguf_out_f32s(struct gguf_out *o, const char *key, const float *x, size_t n) {
    put_array(o, key, GGUF_F32, n);
    for (size_t i = 0; i < n; i++) text_int(&o->keys, f32_bits(x[i]), 4);
}

void gguf_out_i32s(struct gguf_out *o, const char *key, const int32_t *x, size_t n) {
    put_array(o, key, GGUF_I32, n);
    for (size_t i = 0; i < n; i++) text_int(&o->keys, (uint32_t)x[i], 4);
}

void gguf_out_u8s(struct gguf_out *o, const char *key, const char *bytes, size_t n) {
    put_array(o, key, GGUF_U8, n);
    text_add(&o->keys, bytes, n);
}

void gguf_out_copy_keys(struct gguf_out *o, const struct model_file *f,
                        bool (*wanted)(struct span key)) {
    struct text name = {0};
    for (size_t i = 0; i < f->n_keys; i++) {
        const struct meta_entry *e = &f->keys[i];
        if (!wanted(e->key)) continue;
        text_clear(&name);
        text_add(&name, e->key.p, e->key.n); // a checked name: printable, without NUL
        if (e->type == GGUF_TEXT) {
            gguf_out_text(o, name.data, (const char *)e->at, (size_t)e->count);
            continue;
        }
        size_t bytes = gguf_type_bytes(e->type);
        if (e->type == GGUF_ARRAY) {
            put_array(o, name.data, (enum gguf_type)e->item_type, (size_t)e->count);
            bytes = (size_t)e->count * gguf_type_bytes(e->item_type);
            for (uint64_t k = 0; e->item_type == GGUF_TEXT && k < e->count; k++)
                bytes += 8 + (size_t)bytes_int(e->at + bytes, 8);
        } else {
            put_key(o, name.data, (enum gguf_type)e->type);
        }
        text_add(&o->keys, (const char *)e->at, bytes);
    }
    text_free(&name);
}

void gguf_out_tensor(struct gguf_out *o, const char *name, enum dtype dtype, int n_dims,
                     const int64_t size[4]) {
    assert(!o->in_data && !o->sealed && "tensors are declared before the seal and before data");
    assert(dtype < DTYPE_COUNT && n_dims >= 1 && n_dims <= DIMS_MAX);
    struct out_tensor t = {
        .type = dtype_row(dtype)->gguf_type, .n_dims = n_dims, .offset = o->data_bytes};
    size_t n = strlen(name);
    char shown[SHOWN];
    span_shown((struct span){name, n}, shown, sizeof shown);
    const char *why =
        n > TENSOR_NAME_MAX ? "is longer than 64 bytes" : name_problem((struct span){name, n});
    if (why) out_fail(o, "the tensor name '%s' %s", shown, why);
    if (o->n_tensors == TENSORS_MAX)
        out_fail(o, "there are more than %" PRIu64 " tensors", TENSORS_MAX);
    struct err problem;
    if (!ggml_tensor_bytes(ggml_type_by_id(t.type), n_dims, size, &t.bytes, &problem))
        out_fail(o, "tensor '%s': %s", shown, problem.text);
    if (o->failed) return;
    memcpy(t.name, name, n);
    memcpy(t.size, size, (size_t)n_dims * sizeof *size);
    size_t end;
    if (!size_add((size_t)o->data_bytes, t.bytes, &end) ||
        !size_add(end, gap_after(end, ALIGNMENT_DEFAULT), &end)) {
        out_fail(o, "the tensors up to '%s' have more bytes than any file can", shown);
        return;
    }
    mem_grow((void **)&o->tensors, &o->cap_tensors, o->n_tensors + 1, sizeof t, "tensors to write");
    o->tensors[o->n_tensors++] = t;
    o->data_bytes = end;
}

void gguf_out_seal(struct gguf_out *o) {
    assert(!o->sealed && !o->in_data && "sealed once, before the first data");
    const int64_t size[DIMS_MAX] = {(int64_t)(o->n_tensors + 2) * (HASH_BYTES / 4)};
    gguf_out_tensor(o, SEAL_NAME, DTYPE_I32, 1, size);
    o->sealed = true;
}

// ---------------------------------------------------------------------------------------------------------------
// Data.

static void check_duplicates(struct gguf_out *o) {
    size_t n = o->n_keys + o->n_tensors, twice;
    struct name_row *rows = mem_array(n, sizeof *rows, "names to write");
    struct name_index index;
    for (size_t i = 0; i < o->n_keys; i++)
        rows[i] = (struct name_row){o->keys.data + o->key[i].at, o->key[i].n, i};
    name_index_open(&index, rows, o->n_keys, &twice);
    char shown[SHOWN];
    if (twice < o->n_keys)
        out_fail(o, "key '%s' is written twice",
                 span_shown((struct span){o->keys.data + o->key[twice].at, o->key[twice].n}, shown,
                            sizeof shown));
    for (size_t i = 0; i < o->n_tensors; i++)
        rows[i] = (struct name_row){o->tensors[i].name, strlen(o->tensors[i].name), i};
    name_index_open(&index, rows, o->n_tensors, &twice);
    if (twice < o->n_tensors) out_fail(o, "tensor '%s' is written twice", o->tensors[twice].name);
    name_index_close(&index);
}

static void begin_part(struct gguf_out *o) { seal_hash_begin(&o->hash, o->now + 1); }

static void write_header(struct gguf_out *o) {
    assert(!o->in_data);
    o->in_data = true;
    check_duplicates(o);
    struct text h = {0};
    text_add(&h, "GGUF", 4);
    text_int(&h, 3, 4);
    text_int(&h, o->n_tensors, 8);
    text_int(&h, o->n_keys, 8);
    if (o->n_keys) text_add(&h, o->keys.data, o->keys.len);
    for (size_t i = 0; i < o->n_tensors; i++) {
        const struct out_tensor *t = &o->tensors[i];
        text_int(&h, strlen(t->name), 8);
        text_str(&h, t->name);
        text_int(&h, (uint64_t)t->n_dims, 4);
        for (int d = t->n_dims; d-- > 0;) text_int(&h, (uint64_t)t->size[d], 8); // innermost first
        text_int(&h, t->type, 4);
        text_int(&h, t->offset, 8);
    }
    if (h.len > HEADER_BYTES_MAX)
        out_fail(o, "its header of %zu bytes is longer than the %zu that readers accept", h.len,
                 HEADER_BYTES_MAX);
    for (size_t gap = gap_after(h.len, ALIGNMENT_DEFAULT); gap; gap--) text_int(&h, 0, 1);
    if (!o->failed) file_out_write(o->file, h.data, h.len);
    text_int(&o->seal, seal_hash_whole(&o->hash, 0, (const unsigned char *)h.data, h.len),
             HASH_BYTES);
    text_free(&h);
    begin_part(o);
}

static void put_data(struct gguf_out *o, const void *bytes, size_t n) {
    static const char zeros[ALIGNMENT_DEFAULT];
    assert(o->now < o->n_tensors && n <= o->tensors[o->now].bytes - o->now_bytes);
    file_out_write(o->file, bytes, n);
    if (o->sealed) seal_hash_add(&o->hash, bytes, n);
    o->now_bytes += n;
    if (o->now_bytes < o->tensors[o->now].bytes) return;
    file_out_write(o->file, zeros,
                   gap_after(o->now_bytes, ALIGNMENT_DEFAULT)); // each tensor begins aligned
    text_int(&o->seal, seal_hash_end(&o->hash), HASH_BYTES);
    o->now++;
    o->now_bytes = 0;
    begin_part(o);
}

void gguf_out_data(struct gguf_out *o, const void *bytes, size_t n) {
    if (!o->in_data) write_header(o);
    if (o->failed || !n) return;
    assert(o->now < o->n_tensors - o->sealed && "more data than tensors were declared");
    assert(n <= o->tensors[o->now].bytes - o->now_bytes && "data past the end of the tensor");
    put_data(o, bytes, n);
}

bool gguf_out_commit(struct gguf_out *o, struct err *err) {
    if (!o->in_data) write_header(o);
    if (!o->failed) {
        assert(o->now == o->n_tensors - o->sealed && !o->now_bytes &&
               "a declared tensor has no or not all data");
        if (o->sealed) {
            uint64_t whole = seal_hash_whole(&o->hash, o->now + 1,
                                             (const unsigned char *)o->seal.data, o->seal.len);
            text_int(&o->seal, whole, HASH_BYTES);
            put_data(o, o->seal.data, o->seal.len);
        }
    }
    bool good = !o->failed;
    if (good)
        good = file_out_commit(o->file, err);
    else {
        file_out_abort(o->file);
        if (err) *err = o->err;
    }
    out_free(o);
    return good;
}

// ---------------------------------------------------------------------------------------------------------------
// Checking the seal.

// True when [from, to) of the file is zeros, at most one alignment of them.
static bool is_padding(const struct model_file *f, size_t from, size_t to) {
    if (from > to || to - from >= ALIGNMENT_DEFAULT) return false;
    for (size_t i = from; i < to; i++)
        if (f->map.data[i]) return false;
    return true;
}

// The tensor with the hashes, NULL with a sentence. Everything the loop in model_file_seal relies
// on is checked here.
static const struct file_tensor *find_seal(const struct model_file *f, struct err *err) {
    const struct file_tensor *t = model_file_tensor(f, SEAL_NAME);
    const char *path = path_end(f->map.path);
    if (!t || strcmp(f->kind, "GGUF v3")) {
        err_set(err, "%s: has no seal (tensor " SEAL_NAME "), so nothing says whether it is whole",
                path);
        return NULL;
    }
    size_t n = f->n_tensors - 1;
    if (t != &f->tensors[n] || t->dtype != DTYPE_I32 || t->n_dims != 1 ||
        t->bytes != (n + 2) * HASH_BYTES || f->alignment != ALIGNMENT_DEFAULT) {
        err_set(err,
                "%s: its seal is not the one of this file: expected %zu hashes in the last tensor",
                path, n + 2);
        return NULL;
    }
    return t;
}

static bool check_parts(const struct model_file *f, const unsigned char *seal, struct seal_hash *h,
                        struct err *err) {
    size_t n = f->n_tensors - 1;
    const char *path = path_end(f->map.path);
    if (seal_hash_whole(h, n + 1, seal, (n + 1) * HASH_BYTES) !=
        bytes_int(seal + (n + 1) * HASH_BYTES, HASH_BYTES))
        return err_set(err, "%s: the seal itself is damaged", path);
    if (seal_hash_whole(h, 0, f->map.data, f->data_at) != bytes_int(seal, HASH_BYTES))
        return err_set(
            err, "%s: the header is damaged: use an older checkpoint or download it again", path);
    size_t at = f->data_at; // where the next tensor has to begin
    for (size_t i = 0; i <= n; i++) {
        const struct file_tensor *t = &f->tensors[i];
        const unsigned char *data = t->data;
        size_t begin = (size_t)(data - f->map.data);
        if (!is_padding(f, at, begin))
            return err_set(err, "%s: the bytes before tensor '%s' are damaged", path, t->name);
        if (i < n && seal_hash_whole(h, i + 1, data, t->bytes) !=
                         bytes_int(seal + (i + 1) * HASH_BYTES, HASH_BYTES))
            return err_set(
                err, "%s: tensor '%s' is damaged: use an older checkpoint or download it again",
                path, t->name);
        at = begin + t->bytes;
    }
    if (!is_padding(f, at, f->map.size) || gap_after(f->map.size, ALIGNMENT_DEFAULT))
        return err_set(
            err,
            "%s: the end of the file is damaged: bytes are missing or were added after the seal",
            path);
    return true;
}

bool model_file_seal(const struct model_file *f, struct err *err) {
    const struct file_tensor *t = find_seal(f, err);
    if (!t) return false;
    struct seal_hash h = {.piece = mem_alloc(SEAL_PIECE, "seal buffer")};
    bool good = check_parts(f, t->data, &h, err);
    mem_free(h.piece);
    return good;
}
