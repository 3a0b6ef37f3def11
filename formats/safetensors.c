// safetensors: the reader of one file's table.
//
//     u64 N, little-endian | N bytes of JSON, perhaps padded with blanks | data to the end of the file
//     JSON: { "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end] }, ...,
//             "__metadata__": { text: text } }                 offsets count from the first data byte
//
// Invariants after safetensors_read:
//   1. Every tensor's bytes are its shape times its dtype and lie inside the file.
//   2. Sorted by place, each tensor begins where the one before ends, the first at the first data
//   byte, the last ends with the file: nothing overlaps, nothing is hidden between tensors.
//   3. Names are unique, printable and at most ST_NAME_MAX bytes.
// Memory stays proportional to the header, which is compared with the file before it is looked at.
// What a tensor means is not known here: hf_folder.c.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
    enum dtype dtype;
} types[] = {
    {"F32", 32, DTYPE_F32},        {"F16", 16, DTYPE_F16},       {"BF16", 16, DTYPE_BF16},
    {"I32", 32, DTYPE_I32},        {"F64", 64, DTYPE_COUNT},     {"C64", 64, DTYPE_COUNT},
    {"I64", 64, DTYPE_COUNT},      {"U64", 64, DTYPE_COUNT},     {"U32", 32, DTYPE_COUNT},
    {"I16", 16, DTYPE_COUNT},      {"U16", 16, DTYPE_COUNT},     {"I8", 8, DTYPE_COUNT},
    {"U8", 8, DTYPE_COUNT},        {"BOOL", 8, DTYPE_COUNT},     {"F8_E4M3", 8, DTYPE_COUNT},
    {"F8_E5M2", 8, DTYPE_COUNT},   {"F8_E8M0", 8, DTYPE_COUNT},  {"F6_E2M3", 6, DTYPE_COUNT},
    {"F6_E3M2", 6, DTYPE_COUNT},   {"F4", 4, DTYPE_COUNT},       {"F8_E4M3FNUZ", 8, DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, DTYPE_COUNT},
};

bool safetensors_looks_like(const unsigned char *p, size_t n) {
    if (n < 10 || p[8] != '{') return false;
    uint64_t header = bytes_int(p, 8);
    return header >= 2 && header <= ST_HEADER_MAX && (p[9] == '"' || p[9] == ' ' || p[9] == '}');
}

struct span safetensors_name(const struct st_file *s, const struct st_tensor *t) {
    return (struct span){s->names.data + t->name_at, t->name_n};
}

void safetensors_free(struct st_file *s) {
    text_free(&s->names);
    mem_free(s->tensors);
    name_index_close(&s->index);
    *s = (struct st_file){0};
}

// ---------------------------------------------------------------------------------------------------------------
// One entry.

struct reader {
    struct json json;
    struct st_file *out;
    struct err *err;
    bool refused; // err has the sentence; else the JSON cursor has it
    struct text word;
    char name[ST_NAME_MAX + 1], shown[SHOWN];
};

static bool refuse(struct reader *r, const char *format, ...) PRINTF_LIKE(2, 3);
static bool refuse(struct reader *r, const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!r->refused) err_set(r->err, "tensor '%s': %s", r->shown, text);
    r->refused = true;
    return false;
}

static bool read_dtype(struct reader *r, struct st_tensor *t, unsigned *bits) {
    if (!json_string(&r->json, &r->word)) return false;
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (!strcmp(types[i].name, r->word.data)) {
            t->type = types[i].name;
            t->dtype = types[i].dtype;
            *bits = types[i].bits;
            return true;
        }
    char shown[SHOWN];
    return refuse(r, "dtype '%s' is unknown",
                  span_shown((struct span){r->word.data, r->word.len}, shown, sizeof shown));
}

static bool read_sizes(struct reader *r, int64_t *x, int most, int *count, const char *what) {
    if (!json_array(&r->json)) return false;
    for (*count = 0; json_item(&r->json); ++*count) {
        if (*count == most) return refuse(r, "%s has more than %d numbers", what, most);
        if (!json_integer(&r->json, &x[*count])) return false;
        if (x[*count] < 0) return refuse(r, "%s holds %" PRId64, what, x[*count]);
    }
    return !r->json.bad;
}

static bool shape_bytes(const struct st_tensor *t, unsigned bits, size_t *bytes) {
    size_t count = 1, all;
    for (int d = 0; d < t->n_dims; d++)
        if (!size_mul(count, (size_t)t->size[d], &count)) return false;
    if (!size_mul(count, bits, &all) || all % 8) return false;
    *bytes = all / 8;
    return true;
}

static bool read_entry(struct reader *r, struct st_tensor *t) {
    bool seen[3] = {false};
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    char key[32];
    int64_t offsets[2];
    int n_offsets = 0;
    unsigned bits = 0;
    if (!json_object(&r->json)) return false;
    while (json_key(&r->json, key, sizeof key)) {
        size_t k = 0;
        while (k < COUNT_OF(fields) && strcmp(key, fields[k])) k++;
        if (k == COUNT_OF(fields)) return refuse(r, "has an unknown field '%.31s'", key);
        if (seen[k]) return refuse(r, "has the field '%s' twice", key);
        seen[k] = true;
        bool read = k == 0   ? read_dtype(r, t, &bits)
                    : k == 1 ? read_sizes(r, t->size, ST_DIMS_MAX, &t->n_dims, fields[1])
                             : read_sizes(r, offsets, 2, &n_offsets, fields[2]);
        if (!read) return false;
    }
    if (r->json.bad) return false;
    for (size_t k = 0; k < COUNT_OF(fields); k++)
        if (!seen[k]) return refuse(r, "has no '%s'", fields[k]);
    if (n_offsets != 2) return refuse(r, "data_offsets has %d numbers, expected 2", n_offsets);
    if (offsets[0] > offsets[1])
        return refuse(r, "begins at %" PRId64 " and ends before that, at %" PRId64, offsets[0],
                      offsets[1]);
    if (!shape_bytes(t, bits, &t->bytes))
        return refuse(r, "its shape multiplies to more bytes than any file can have, or to a part "
                         "of a byte");
    if ((uint64_t)(offsets[1] - offsets[0]) != t->bytes)
        return refuse(r, "has %" PRId64 " bytes of data where its shape as %s needs %zu",
                      offsets[1] - offsets[0], t->type, t->bytes);
    t->begin = (size_t)offsets[0]; // from the first data byte, until place_tensors
    return true;
}

static bool read_table(struct reader *r) {
    struct st_file *s = r->out;
    bool metadata = false;
    if (!json_object(&r->json)) return false;
    while (json_key(&r->json, r->name, sizeof r->name)) {
        size_t n = strlen(r->name);
        span_shown((struct span){r->name, n}, r->shown, sizeof r->shown);
        if (!strcmp(r->name, "__metadata__")) {
            if (metadata) return refuse(r, "is there twice");
            metadata = true;
            if (json_peek(&r->json) != JSON_OBJECT) return refuse(r, "is no object");
            if (!json_skip(&r->json)) return false;
            continue;
        }
        const char *why = name_problem((struct span){r->name, n});
        if (why) return refuse(r, "its name %s", why);
        if (s->n == TENSORS_MAX) return refuse(r, "is one tensor too many");
        struct st_tensor t = {.name_at = s->names.len, .name_n = n};
        if (!read_entry(r, &t)) return false;
        text_add(&s->names, r->name, n);
        mem_grow((void **)&s->tensors, &s->cap, s->n + 1, sizeof t, "table of tensors");
        s->tensors[s->n++] = t;
    }
    return !r->json.bad;
}

// ---------------------------------------------------------------------------------------------------------------
// The whole picture.

static int by_place(const void *a, const void *b) {
    const struct st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin > y->begin ? 1 : -1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); // an empty one stands before its neighbour
}

static bool place_tensors(struct st_file *s, size_t data_at, size_t n, struct err *err) {
    char shown[SHOWN];
    size_t end = 0, have = n - data_at;
    if (s->n) qsort(s->tensors, s->n, sizeof *s->tensors, by_place);
    for (size_t i = 0; i < s->n; i++) {
        struct st_tensor *t = &s->tensors[i];
        span_shown(safetensors_name(s, t), shown, sizeof shown);
        if (t->begin != end)
            return err_set(err, "tensor '%s' begins at offset %zu, expected %zu: %s", shown,
                           t->begin, end,
                           t->begin < end ? "it overlaps the one before"
                                          : "there is a hole before it");
        if (t->bytes > have - end)
            return err_set(err,
                           "the file ends %zu bytes before the end of tensor '%s': it is "
                           "truncated, download it again",
                           t->bytes - (have - end), shown);
        end += t->bytes;
        t->begin += data_at;
    }
    return end == have || err_set(err, "%zu bytes behind the last tensor belong to none", have - end);
}

static bool index_names(struct st_file *s, struct err *err) {
    struct name_row *rows = mem_array(s->n, sizeof *rows, "index of tensors");
    for (size_t i = 0; i < s->n; i++) {
        struct span name = safetensors_name(s, &s->tensors[i]);
        rows[i] = (struct name_row){name.p, name.n, i};
    }
    size_t twice;
    char shown[SHOWN];
    name_index_open(&s->index, rows, s->n, &twice);
    if (twice == s->n) return true;
    return err_set(err, "tensor '%s' is there twice",
                   span_shown(safetensors_name(s, &s->tensors[twice]), shown, sizeof shown));
}

bool safetensors_read(const unsigned char *bytes, size_t n, struct st_file *s, struct err *err) {
    *s = (struct st_file){0};
    if (n < 8) return err_set(err, "has only %zu bytes, too few for a safetensors file", n);
    uint64_t header = bytes_int(bytes, 8);
    if (header > ST_HEADER_MAX)
        return err_set(err, "claims a header of %" PRIu64 " bytes, the most is %" PRIu64, header,
                       ST_HEADER_MAX);
    if (header > n - 8)
        return err_set(err,
                       "claims a header of %" PRIu64 " bytes where %zu follow: it is truncated or "
                       "damaged, download it again",
                       header, n - 8);
    if (!header || bytes[8] != '{')
        return err_set(err, "its header does not begin with '{': it is no safetensors file");
    struct reader r = {.out = s, .err = err};
    json_open(&r.json, (const char *)bytes + 8, (size_t)header);
    bool good = read_table(&r);
    if (!r.refused && !json_done(&r.json, err)) good = err_in(err, "its header");
    text_free(&r.word);
    return good && place_tensors(s, 8 + (size_t)header, n, err) && index_names(s, err);
}
