// GGUF: the reader. One pass over the header through one bounded cursor, then the checks that need
// the whole picture.
//
//     "GGUF" | u32 version | u64 tensors | u64 keys
//     keys x   { text key, u32 type, value }                      text = u64 length + bytes; all
//     little-endian, unaligned tensors x{ text name, u32 dims, dims x u64 size, u32 type, u64
//     offset } zeros up to a multiple of general.alignment (default 32) | tensor data
//
// Invariants, all established here before anyone else sees the file:
//   1. A count is compared with the bytes left (each entry has a smallest size) before its loop
//   starts, tables grow with what
//      was really read, so memory stays proportional to the bytes of the file and never to a number
//      in it.
//   2. Every key and tensor name is unique and printable; every bool is 0 or 1; every text of every
//   array was walked once.
//   3. Every tensor's bytes lie inside the file, aligned, and no two tensors share a byte.
// Versions 2 and 3 have the same layout. Version 1 counted in 32 bits and is refused, as are
// big-endian files. Sizes arrive innermost first and are turned around: outermost first is what the
// rest of the program speaks.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES_MIN (8 + 1 + 4 + 1) // length, one byte of name, type, one byte of value
#define TENSOR_BYTES_MIN                                                                           \
    (8 + 1 + 4 + 8 + 4 + 8) // length, one byte of name, dims, one size, type, offset

// ---------------------------------------------------------------------------------------------------------------
// The cursor.

bool cursor_refuse(struct cursor *c, const char *format, ...) {
    if (c->bad) return false;
    c->bad = true;
    char text[512], name[SHOWN];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!c->noun) return err_set(c->err, "%s (byte %zu of the file)", text, c->at);
    if (!c->name.n)
        return err_set(c->err, "%s %" PRIu64 ": %s (byte %zu of the file)", c->noun, c->number,
                       text, c->at);
    return err_set(c->err, "%s %" PRIu64 " '%s': %s (byte %zu of the file)", c->noun, c->number,
                   span_shown(c->name, name, sizeof name), text, c->at);
}

static size_t cursor_left(const struct cursor *c) {
    assert(c->at <= c->size);
    return c->bad ? 0 : c->size - c->at;
}

const unsigned char *cursor_take(struct cursor *c, uint64_t n, const char *what) {
    if (c->bad) return NULL;
    size_t left = c->size - c->at;
    if (n > left) {
        if (c->size < c->file_size)
            cursor_refuse(c,
                          "the header goes on past %zu bytes inside the %s: no sane file needs "
                          "that much, it is damaged",
                          c->size, what);
        else
            cursor_refuse(c,
                          "the file ends inside the %s, which needs %" PRIu64
                          " bytes where %zu are left: it is "
                          "truncated or damaged, download it again",
                          what, n, left);
        return NULL;
    }
    const unsigned char *p = c->bytes + c->at;
    c->at += (size_t)n;
    return p;
}

uint64_t bytes_int(const unsigned char *p, size_t width) {
    uint64_t x = 0;
    for (size_t i = 0; i < width; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

uint64_t cursor_int(struct cursor *c, size_t width, const char *what) {
    const unsigned char *p = cursor_take(c, width, what);
    return p ? bytes_int(p, width) : 0;
}

struct span cursor_text(struct cursor *c, uint64_t max, const char *what) {
    struct span none = {0};
    uint64_t n = cursor_int(c, 8, what);
    if (c->bad) return none;
    if (n > max && n <= c->size - c->at) { // else the sentence about the end of the file says more
        cursor_refuse(c, "the %s is %" PRIu64 " bytes long, the most is %" PRIu64, what, n, max);
        return none;
    }
    const unsigned char *p = cursor_take(c, n, what);
    return p ? (struct span){(const char *)p, (size_t)n} : none;
}

// ---------------------------------------------------------------------------------------------------------------
// Types of values and of tensors.

static const struct {
    uint8_t bytes;
    enum meta_kind kind;
} value_types[] = {
    [GGUF_U8] = {1, META_INT},      [GGUF_I8] = {1, META_INT},    [GGUF_U16] = {2, META_INT},
    [GGUF_I16] = {2, META_INT},     [GGUF_U32] = {4, META_INT},   [GGUF_I32] = {4, META_INT},
    [GGUF_F32] = {4, META_REAL},    [GGUF_BOOL] = {1, META_BOOL}, [GGUF_TEXT] = {0, META_TEXT},
    [GGUF_ARRAY] = {0, META_ARRAY}, [GGUF_U64] = {8, META_INT},   [GGUF_I64] = {8, META_INT},
    [GGUF_F64] = {8, META_REAL},
};
static_assert(COUNT_OF(value_types) == GGUF_TYPE_COUNT, "one row per value type");

size_t gguf_type_bytes(uint32_t type) {
    return type < GGUF_TYPE_COUNT ? value_types[type].bytes : 0;
}
enum meta_kind gguf_type_kind(uint32_t type) {
    return type < GGUF_TYPE_COUNT ? value_types[type].kind : META_ABSENT;
}

static const struct ggml_type tensor_types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
    {41, "Q1_0", 128, 18},    {42, "Q2_0", 64, 18},
};

const struct ggml_type *ggml_type_by_id(uint32_t id) {
    for (size_t i = 0; i < COUNT_OF(tensor_types); i++)
        if (tensor_types[i].id == id) return &tensor_types[i];
    return NULL;
}

bool ggml_tensor_bytes(const struct ggml_type *t, int n_dims, const int64_t *size, size_t *bytes,
                       struct err *err) {
    assert(n_dims >= 1 && n_dims <= DIMS_MAX);
    for (int d = 0; d < n_dims; d++)
        if (size[d] < 1 || size[d] >= DIM_LIMIT)
            return err_set(err, "dimension %d is %" PRId64 ", expected 1 to %" PRId64, d, size[d],
                           DIM_LIMIT - 1);
    int64_t row = size[n_dims - 1];
    if (row % t->block_weights)
        return err_set(err,
                       "its rows have %" PRId64
                       " weights, which is no multiple of the %d in a block of %s",
                       row, t->block_weights, t->name);
    bool fits = size_mul((size_t)(row / t->block_weights), (size_t)t->block_bytes, bytes);
    for (int d = 0; d < n_dims - 1; d++) fits = fits && size_mul(*bytes, (size_t)size[d], bytes);
    return fits || err_set(err, "its dimensions multiply to more bytes than any file can have");
}

// ---------------------------------------------------------------------------------------------------------------
// Keys.

static bool check_bools(struct cursor *c, const unsigned char *p, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1) return cursor_refuse(c, "a bool is %u, expected 0 or 1", p[i]);
    return true;
}

static bool read_array(struct cursor *c, struct meta_entry *e) {
    e->item_type = (uint32_t)cursor_int(c, 4, "element type of an array");
    e->count = cursor_int(c, 8, "length of an array");
    if (c->bad) return false;
    if (e->item_type == GGUF_ARRAY)
        return cursor_refuse(c, "is an array of arrays, which no model needs");
    if (e->item_type >= GGUF_TYPE_COUNT)
        return cursor_refuse(c, "has elements of type %" PRIu32 ", the known ones are 0 to %d",
                             e->item_type, GGUF_TYPE_COUNT - 1);
    size_t width = gguf_type_bytes(e->item_type),
           least = width ? width : 8; // a text is at least its length
    if (e->count > cursor_left(c) / least)
        return cursor_refuse(
            c,
            "claims %" PRIu64
            " elements of at least %zu bytes where %zu bytes are left in the %s: the "
            "file is truncated or damaged",
            e->count, least, cursor_left(c),
            c->size < c->file_size ? "largest allowed header" : "file");
    e->at = c->bytes + c->at;
    if (width) {
        const unsigned char *p =
            cursor_take(c, e->count * width, "elements of an array"); // bounded by the check above
        return p && (e->item_type != GGUF_BOOL || check_bools(c, p, e->count));
    }
    for (uint64_t i = 0; i < e->count && !c->bad; i++)
        cursor_text(c, TEXT_BYTES_MAX, "texts of an array");
    return !c->bad;
}

static bool read_value(struct cursor *c, struct meta_entry *e) {
    e->type = (uint32_t)cursor_int(c, 4, "type of a value");
    if (c->bad) return false;
    if (e->type >= GGUF_TYPE_COUNT)
        return cursor_refuse(c, "has a value of type %" PRIu32 ", the known ones are 0 to %d",
                             e->type, GGUF_TYPE_COUNT - 1);
    if (e->type == GGUF_ARRAY) return read_array(c, e);
    if (e->type == GGUF_TEXT) {
        struct span s = cursor_text(c, TEXT_BYTES_MAX, "text");
        e->at = (const unsigned char *)s.p;
        e->count = s.n;
        return !c->bad;
    }
    e->at = cursor_take(c, gguf_type_bytes(e->type), "value");
    return e->at && (e->type != GGUF_BOOL || check_bools(c, e->at, 1));
}

bool gguf_read_keys(struct cursor *c, uint64_t n, struct model_file *f) {
    assert(!f->n_keys && n <= KEYS_MAX);
    for (uint64_t i = 0; i < n; i++) {
        struct meta_entry e = {0};
        c->noun = "key", c->number = i, c->name = (struct span){0};
        e.key = cursor_text(c, KEY_BYTES_MAX, "name of a key");
        if (c->bad) return false;
        const char *why = name_problem(e.key);
        if (why) return cursor_refuse(c, "its name %s", why);
        c->name = e.key;
        if (!read_value(c, &e)) return false;
        mem_grow((void **)&f->keys, &f->cap_keys, f->n_keys + 1, sizeof e,
                 "table of metadata keys");
        f->keys[f->n_keys++] = e;
    }
    c->noun = NULL;
    struct name_row *rows = mem_array(f->n_keys, sizeof *rows, "index of metadata keys");
    for (size_t i = 0; i < f->n_keys; i++)
        rows[i] = (struct name_row){f->keys[i].key.p, f->keys[i].key.n, i};
    size_t twice;
    name_index_open(&f->key_index, rows, f->n_keys, &twice);
    char name[SHOWN];
    return twice == f->n_keys ||
           cursor_refuse(c, "key '%s' is there twice", span_shown(f->keys[twice].key, name, SHOWN));
}

static bool read_alignment(struct cursor *c, struct model_file *f) {
    f->alignment = ALIGNMENT_DEFAULT;
    size_t i =
        name_index_find(&f->key_index, "general.alignment", strlen("general.alignment"), f->n_keys);
    if (i == f->n_keys) return true;
    const struct meta_entry *e = &f->keys[i];
    if (e->type != GGUF_U32)
        return cursor_refuse(c, "general.alignment has type %" PRIu32 ", expected 4 (u32)",
                             e->type);
    uint64_t x = bytes_int(e->at, 4);
    if (x < ALIGNMENT_MIN || x > ALIGNMENT_MAX || (x & (x - 1)))
        return cursor_refuse(
            c, "general.alignment is %" PRIu64 ", expected a power of two from %d to %d", x,
            ALIGNMENT_MIN, ALIGNMENT_MAX);
    f->alignment = (size_t)x;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Tensors.

struct range { // of a tensor's data, first relative to the data section, then to the file
    uint64_t begin;
    size_t bytes;
    size_t tensor;
};

static bool read_tensor_info(struct cursor *c, struct file_tensor *t, struct range *r) {
    struct span name = cursor_text(c, TENSOR_NAME_MAX, "name of a tensor");
    if (c->bad) return false;
    const char *why = name_problem(name);
    if (why) return cursor_refuse(c, "its name %s", why);
    c->name = name;
    memcpy(t->name, name.p, name.n); // name.n <= 64 leaves the final NUL alone
    uint64_t n_dims = cursor_int(c, 4, "number of dimensions");
    if (c->bad) return false;
    if (n_dims < 1 || n_dims > DIMS_MAX)
        return cursor_refuse(c, "has %" PRIu64 " dimensions, expected 1 to %d", n_dims, DIMS_MAX);
    t->n_dims = (int)n_dims;
    for (int d = t->n_dims; d-- > 0;) { // innermost first on disk
        uint64_t x = cursor_int(c, 8, "sizes");
        if (c->bad) return false;
        if (x < 1 || x >= (uint64_t)DIM_LIMIT)
            return cursor_refuse(c, "dimension %d is %" PRIu64 ", expected 1 to %" PRId64, d, x,
                                 DIM_LIMIT - 1);
        t->size[d] = (int64_t)x;
    }
    uint32_t id = (uint32_t)cursor_int(c, 4, "type");
    r->begin = cursor_int(c, 8, "offset");
    if (c->bad) return false;
    const struct ggml_type *type = ggml_type_by_id(id);
    if (!type)
        return cursor_refuse(c,
                             "has type %" PRIu32
                             ", which is unknown or was withdrawn from GGUF: get a newer or a more "
                             "common quantization of the model",
                             id);
    struct err problem;
    if (!ggml_tensor_bytes(type, t->n_dims, t->size, &r->bytes, &problem))
        return cursor_refuse(c, "%s", problem.text);
    t->dtype = dtype_from_gguf(id);
    t->type_name = type->name;
    t->bytes = t->dtype == DTYPE_COUNT ? 0 : r->bytes;
    return true;
}

static bool read_tensor_infos(struct cursor *c, uint64_t n, struct model_file *f,
                              struct range **ranges) {
    size_t cap = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct file_tensor t = {0};
        struct range r = {.tensor = f->n_tensors};
        c->noun = "tensor", c->number = i, c->name = (struct span){0};
        if (!read_tensor_info(c, &t, &r)) return false;
        mem_grow((void **)&f->tensors, &f->cap_tensors, f->n_tensors + 1, sizeof t,
                 "table of tensors");
        mem_grow((void **)ranges, &cap, f->n_tensors + 1, sizeof r, "data ranges of tensors");
        f->tensors[f->n_tensors] = t;
        (*ranges)[f->n_tensors++] = r;
    }
    c->noun = NULL;
    size_t twice;
    char name[SHOWN];
    return model_file_index(f, &twice) ||
           cursor_refuse(
               c, "tensor '%s' is there twice",
               span_shown((struct span){f->tensors[twice].name, strlen(f->tensors[twice].name)},
                          name, SHOWN));
}

static int by_begin(const void *a, const void *b) {
    uint64_t x = ((const struct range *)a)->begin, y = ((const struct range *)b)->begin;
    return (x > y) - (x < y);
}

// Ranges become positions in the file and are proved to be inside it, aligned and disjoint.
static bool place_tensors(struct model_file *f, struct range *ranges, struct err *err) {
    size_t n = f->n_tensors, short_by = 0, shortest = 0;
    for (size_t i = 0; i < n; i++) {
        struct range *r = &ranges[i];
        const char *name = f->tensors[i].name;
        if (r->begin % f->alignment)
            return err_set(err,
                           "tensor %zu '%s' begins at offset %" PRIu64
                           ", which is no multiple of the alignment %zu: the "
                           "file is damaged",
                           i, name, r->begin, f->alignment);
        size_t end;
        if (r->begin > SIZE_MAX || !size_add(f->data_at, (size_t)r->begin, &end) ||
            !size_add(end, r->bytes, &end))
            return err_set(
                err, "tensor %zu '%s' begins at offset %" PRIu64 ", beyond the end of any file", i,
                name, r->begin);
        r->begin += f->data_at;
        if (end > f->map.size && end - f->map.size > short_by)
            short_by = end - f->map.size, shortest = i;
    }
    if (short_by)
        return err_set(err,
                       "the file ends %zu bytes before the end of tensor %zu '%s' (it has %zu "
                       "bytes): it is truncated, "
                       "download it again",
                       short_by, shortest, f->tensors[shortest].name, f->map.size);
    if (n) qsort(ranges, n, sizeof *ranges, by_begin);
    for (size_t i = 1; i < n; i++)
        if (ranges[i].begin - ranges[i - 1].begin < ranges[i - 1].bytes)
            return err_set(
                err, "tensors '%s' and '%s' overlap at byte %" PRIu64 " of the file: it is damaged",
                f->tensors[ranges[i - 1].tensor].name, f->tensors[ranges[i].tensor].name,
                ranges[i].begin);
    for (size_t i = 0; i < n; i++)
        f->tensors[ranges[i].tensor].data = f->map.data + ranges[i].begin;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------

static bool check_version(struct cursor *c, struct model_file *f) {
    uint32_t version = (uint32_t)cursor_int(c, 4, "version");
    if (c->bad) return false;
    if (version == 1)
        return cursor_refuse(c,
                             "is GGUF version 1, which 2023 left behind: convert the model again");
    if (version > 0xffff && !(version & 0xffff))
        return cursor_refuse(
            c, "is a big-endian GGUF (version %" PRIu32 "): get or convert a little-endian one",
            version >> 24);
    if (version != 2 && version != 3)
        return cursor_refuse(c, "is GGUF version %" PRIu32 ", expected 2 or 3", version);
    snprintf(f->kind, sizeof f->kind, "GGUF v%" PRIu32, version);
    return true;
}

static bool check_count(struct cursor *c, uint64_t n, uint64_t max, size_t least_bytes,
                        const char *what) {
    if (c->bad) return false;
    if (n > max)
        return cursor_refuse(c, "claims %" PRIu64 " %s, the most is %" PRIu64 ": it is damaged", n,
                             what, max);
    if (n > cursor_left(c) / least_bytes)
        return cursor_refuse(
            c,
            "claims %" PRIu64
            " %s of at least %zu bytes, but only %zu bytes follow: it is truncated or "
            "damaged, download it again",
            n, what, least_bytes, cursor_left(c));
    return true;
}

bool gguf_read(struct model_file *f, struct err *err) {
    struct cursor c = {.bytes = f->map.data, .file_size = f->map.size, .err = err};
    c.size = c.file_size < HEADER_BYTES_MAX ? c.file_size : HEADER_BYTES_MAX;
    cursor_take(&c, 4, "magic");
    if (!check_version(&c, f)) return false;
    uint64_t n_tensors = cursor_int(&c, 8, "number of tensors");
    uint64_t n_keys = cursor_int(&c, 8, "number of keys");
    if (!check_count(&c, n_keys, KEYS_MAX, KEY_BYTES_MIN, "keys")) return false;
    if (!check_count(&c, n_tensors, TENSORS_MAX, TENSOR_BYTES_MIN, "tensors")) return false;
    if (!gguf_read_keys(&c, n_keys, f) || !read_alignment(&c, f)) return false;
    struct range *ranges = NULL;
    bool good = read_tensor_infos(&c, n_tensors, f, &ranges);
    if (good) {
        size_t gap =
            (f->alignment - c.at % f->alignment) % f->alignment; // at <= 256 MB: the sum fits
        f->data_at = c.at + gap < f->map.size ? c.at + gap
                                              : f->map.size; // without tensors no padding is due
        if (n_tensors) f->data_at = c.at + gap;
        good = place_tensors(f, ranges, err);
    }
    mem_free(ranges);
    return good;
}
