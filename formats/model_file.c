// An open model file of any format: recognising it, finding keys and tensors, reading values.
//
// The first bytes decide, never the name: GGUF goes to gguf_read.c, seven plausible integers to
// llama2c.c, a folder and what stands for one to hf_folder.c, and everything else that people are known to pass by mistake (a git-LFS pointer, a
// saved web page, a pickle, ...) is called what it is. All doubt about the bytes ends at open: the
// accessors below work on checked tables and only answer whether a key exists, has the type asked
// for and lies in the range that the caller can use.
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool span_is(struct span s, const char *text) {
    return s.n == strlen(text) && (!s.n || !memcmp(s.p, text, s.n));
}

void text_int(struct text *t, uint64_t x, size_t width) {
    char bytes[8];
    assert(width <= sizeof bytes);
    for (size_t i = 0; i < width; i++) bytes[i] = (char)(unsigned char)(x >> (8 * i));
    text_add(t, bytes, width);
}

// ---------------------------------------------------------------------------------------------------------------
// Names fit for messages and C strings.

// Bytes of the well-formed UTF-8 character at p (n > 0 bytes there) that is no control character; 0
// when it is none.
static size_t printable(const unsigned char *p, size_t n) {
    if (p[0] < 0x80) return p[0] >= 0x20 && p[0] != 0x7f;
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > n) return 0;
    uint32_t code = p[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0, 0xa0, 0x800,
                                     0x10000}; // 0x80 to 0x9f are control characters
    return code >= least[len] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? len : 0;
}

const char *name_problem(struct span s) {
    if (!s.n) return "is empty";
    for (size_t at = 0, step; at < s.n; at += step) {
        step = printable((const unsigned char *)s.p + at, s.n - at);
        if (!step) return "holds a control character or is no UTF-8";
    }
    return NULL;
}

char *span_shown(struct span s, char *buf, size_t cap) {
    static const char mark[] = "...";
    assert(cap > sizeof mark + 4);
    size_t used = 0;
    for (size_t at = 0; at < s.n;) {
        size_t step = printable((const unsigned char *)s.p + at, s.n - at);
        if (used + (step ? step : 1) + sizeof mark > cap) {
            memcpy(buf + used, mark, sizeof mark);
            return buf;
        }
        if (step)
            memcpy(buf + used, s.p + at, step);
        else
            buf[used] = '?';
        used += step ? step : 1;
        at += step ? step : 1;
    }
    buf[used] = 0;
    return buf;
}

// ---------------------------------------------------------------------------------------------------------------
// Keys made up by a reader.

static void put_key(struct key_text *k, const char *key, uint32_t type) {
    text_int(k->to, strlen(key), 8);
    text_str(k->to, key);
    text_int(k->to, type, 4);
    k->n++;
}

void key_u32(struct key_text *k, const char *key, int64_t x) {
    assert(x >= 0 && x <= UINT32_MAX);
    put_key(k, key, GGUF_U32);
    text_int(k->to, (uint64_t)x, 4);
}

void key_f32(struct key_text *k, const char *key, double x) {
    union {
        float f;
        uint32_t u;
    } v = {.f = (float)x};
    put_key(k, key, GGUF_F32);
    text_int(k->to, v.u, 4);
}

void key_bool(struct key_text *k, const char *key, bool x) {
    put_key(k, key, GGUF_BOOL);
    text_int(k->to, x, 1);
}

void key_text_add(struct key_text *k, const char *key, const char *bytes, size_t n) {
    put_key(k, key, GGUF_TEXT);
    text_int(k->to, n, 8);
    text_add(k->to, bytes, n);
}

void key_i32s(struct key_text *k, const char *key, const int64_t *x, size_t n) {
    put_key(k, key, GGUF_ARRAY);
    text_int(k->to, GGUF_I32, 4);
    text_int(k->to, n, 8);
    for (size_t i = 0; i < n; i++) text_int(k->to, (uint64_t)x[i], 4);
}

void key_bools(struct key_text *k, const char *key, const bool *x, size_t n) {
    put_key(k, key, GGUF_ARRAY);
    text_int(k->to, GGUF_BOOL, 4);
    text_int(k->to, n, 8);
    for (size_t i = 0; i < n; i++) text_int(k->to, x[i], 1);
}

bool key_text_read(const struct key_text *k, struct model_file *f, struct err *err) {
    const struct text *t = k->to;
    struct cursor c = {.bytes = (const unsigned char *)t->data, .size = t->len, .file_size = t->len,
                       .err = err};
    bool read = gguf_read_keys(&c, k->n, f);
    assert((!read || c.at == t->len) && "made-up keys read back whole");
    return read;
}

// ---------------------------------------------------------------------------------------------------------------
// The index: names sorted by bytes. libc's qsort stays at n log n here (merge, intro or smooth
// sort, none quadratic on glibc and musl), and comparing costs at most the bytes of the names,
// which are bytes of the file.

static int compare_names(const char *a, size_t a_n, const char *b, size_t b_n) {
    int order = memcmp(a, b, a_n < b_n ? a_n : b_n);
    return order ? order : (a_n > b_n) - (a_n < b_n);
}

static int by_name(const void *a, const void *b) {
    const struct name_row *x = a, *y = b;
    int order = compare_names(x->p, x->n, y->p, y->n);
    return order ? order
                 : (x->i > y->i) -
                       (x->i < y->i); // equal names by place: the report does not depend on qsort
}

void name_index_open(struct name_index *x, struct name_row *rows, size_t n, size_t *duplicate) {
    *x = (struct name_index){rows, n};
    if (n) qsort(rows, n, sizeof *rows, by_name);
    *duplicate = n;
    for (size_t i = 1; i < n && *duplicate == n; i++)
        if (!compare_names(rows[i - 1].p, rows[i - 1].n, rows[i].p, rows[i].n))
            *duplicate = rows[i].i;
}

void name_index_close(struct name_index *x) {
    mem_free(x->rows);
    *x = (struct name_index){0};
}

size_t name_index_find(const struct name_index *x, const char *name, size_t n, size_t absent) {
    size_t lo = 0, hi = x->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = compare_names(x->rows[mid].p, x->rows[mid].n, name, n);
        if (!order) return x->rows[mid].i;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return absent;
}

bool model_file_index(struct model_file *f, size_t *twice) {
    struct name_row *rows = mem_array(f->n_tensors, sizeof *rows, "index of tensors");
    for (size_t i = 0; i < f->n_tensors; i++)
        rows[i] = (struct name_row){f->tensors[i].name, strlen(f->tensors[i].name), i};
    name_index_close(&f->tensor_index);
    name_index_open(&f->tensor_index, rows, f->n_tensors, twice);
    return *twice == f->n_tensors;
}

void *model_file_own(struct model_file *f, size_t bytes, const char *what) {
    mem_grow((void **)&f->owned, &f->cap_owned, f->n_owned + 1, sizeof *f->owned,
             "list of owned tensors");
    return f->owned[f->n_owned++] = mem_alloc(bytes, what);
}

// ---------------------------------------------------------------------------------------------------------------
// What is it?

static bool begins(const unsigned char *p, size_t n, const char *magic, size_t magic_n) {
    return n >= magic_n && !memcmp(p, magic, magic_n);
}

// A web page or other markup, after blanks and a byte order mark.
static bool looks_like_markup(const unsigned char *p, size_t n) {
    size_t at = begins(p, n, "\xef\xbb\xbf", 3) ? 3 : 0;
    while (at < n && at < 64 && strchr(" \t\r\n", p[at]) && p[at]) at++;
    static const char *const openings[] = {"<!doctype", "<html", "<head", "<body", "<?xml", "<!--"};
    for (size_t k = 0; k < COUNT_OF(openings); k++) {
        size_t len = strlen(openings[k]), i = 0;
        while (i < len && at + i < n && (p[at + i] | 0x20) == (openings[k][i] | 0x20)) i++;
        if (i == len) return true;
    }
    return false;
}

// The sentence for a file that is neither GGUF nor llama2.c v0.
static bool refuse_unknown(const unsigned char *p, size_t n, struct err *err) {
    static const struct {
        const char *magic;
        size_t n;
        const char *sentence;
    } known[] = {
        {"version https://git-lfs", 23,
         "is a git-LFS pointer, not the model it points to: fetch the file itself (git lfs pull)"},
        {"PK\3\4", 4,
         "is a zip archive, perhaps a PyTorch or NumPy file: unpack it or convert the model to "
         "safetensors or GGUF"},
        {"\x80\2", 2, "is a Python pickle: convert the model to GGUF"},
        {"\x80\3", 2, "is a Python pickle: convert the model to GGUF"},
        {"\x80\4", 2, "is a Python pickle: convert the model to GGUF"},
        {"\x80\5", 2, "is a Python pickle: convert the model to GGUF"},
        {"24ka", 4,
         "is a llama2.c file of version 1 or 2: export it again as version 0 or convert it to "
         "GGUF"},
        {"lmgg", 4, "is a ggml file from before GGUF: get or convert a GGUF"},
        {"fmgg", 4, "is a ggml file from before GGUF: get or convert a GGUF"},
        {"tjgg", 4, "is a ggml file from before GGUF: get or convert a GGUF"},
        {"\x1f\x8b", 2, "is compressed with gzip: unpack it first"},
        {"\x28\xb5\x2f\xfd", 4, "is compressed with zstd: unpack it first"},
        {"\xfd"
         "7zXZ",
         5, "is compressed with xz: unpack it first"},
        {"\x89HDF", 4, "is an HDF5 file: convert the model to GGUF"},
        {"\x93NUMPY", 6, "is a NumPy array: convert the model to GGUF"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (begins(p, n, known[i].magic, known[i].n)) return err_set(err, "%s", known[i].sentence);
    if (looks_like_markup(p, n))
        return err_set(err, "is a web page, not a model: the download went to a page about the "
                            "file (or an error), not to the file");
    if (safetensors_looks_like(p, n))
        return err_set(err, "is a safetensors file: it opens by its path, beside its config.json");
    if (n < 8)
        return err_set(err, "has only %zu bytes, too few for any model: download it again", n);
    if (p[0] == '{')
        return err_set(err, "is JSON text, not a model: name the folder it is in, or the file with "
                            "the weights");
    return err_set(
        err,
        "is no model file that this program knows: expected GGUF, safetensors or llama2.c .bin, found the bytes "
        "%02x %02x %02x %02x %02x %02x %02x %02x",
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
}

static bool recognise(struct model_file *f, struct err *err) {
    const unsigned char *p = f->map.data;
    size_t n = f->map.size;
    if (!n) return err_set(err, "is empty (0 bytes): download or write it again");
    if (n < 4 && begins((const unsigned char *)"GGUF", 4, (const char *)p, n))
        return err_set(err, "is a GGUF file that ends after %zu bytes: download it again", n);
    if (begins(p, n, "GGUF", 4)) return gguf_read(f, err) && gguf_read_parts(f, err);
    if (llama2c_looks_like(p, n)) return llama2c_read(f, err);
    return refuse_unknown(p, n, err);
}

// A file of a Hugging Face folder stands for the folder: config.json, the index of shards, or
// weights. *only: that file of weights alone.
static bool stands_for_folder(const struct file_map *map, const char **only) {
    const char *slash = strrchr(map->path, '/'), *name = slash ? slash + 1 : map->path;
    static const char *const names[] = {"config.json", "model.safetensors.index.json"};
    bool json = map->size && map->data[0] == '{';
    *only = NULL;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (json && !strcmp(name, names[i])) return true;
    *only = name;
    return safetensors_looks_like(map->data, map->size);
}

const char *path_end(const char *path) {
    size_t n = strlen(path), most = 160;
    return n > most ? path + n - most : path;
}

static struct model_file *opened(struct model_file *f, bool good, struct err *err) {
    if (good) return f;
    char name[200];
    const char *end = path_end(f->map.path);
    err_in(err, "%s", span_shown((struct span){end, strlen(end)}, name, sizeof name));
    model_file_close(f);
    return NULL;
}

struct model_file *model_file_open(const char *path, struct err *err) {
    assert(path);
    struct model_file *f = mem_alloc(sizeof *f, "model file");
    const char *only = NULL;
    if (path_is_folder(path)) {
        f->map.path = mem_text(path);
        return opened(f, hf_read(f, path, NULL, err), err);
    }
    if (!file_map_open(&f->map, path, err)) {
        mem_free(f);
        return NULL;
    }
    f->mapped = true;
    if (!stands_for_folder(&f->map, &only)) return opened(f, recognise(f, err), err);
    const char *slash = strrchr(path, '/');
    char *folder = slash ? mem_text(path) : mem_text(".");
    if (slash) folder[slash == path ? 1 : slash - path] = 0;
    only = only ? path + (only - f->map.path) : NULL;
    file_map_close(&f->map);
    f->mapped = false;
    f->map.path = mem_text(path);
    bool good = hf_read(f, folder, only, err);
    mem_free(folder);
    return opened(f, good, err);
}

struct model_file *model_file_open_bytes(const void *bytes, size_t n, const char *name,
                                         struct err *err) {
    assert(name && (bytes || !n));
    struct model_file *f = mem_alloc(sizeof *f, "model file");
    f->map = (struct file_map){bytes, n, mem_text(name)};
    return opened(f, recognise(f, err), err);
}

static bool map_holds(const struct file_map *m, const void *p) {
    return (uintptr_t)p >= (uintptr_t)m->data && (uintptr_t)p - (uintptr_t)m->data < m->size;
}

// Only maps: what was made or given in memory would be gone.
void model_file_forget(const struct model_file *f, const void *data, size_t bytes) {
    bool mapped = f->mapped && map_holds(&f->map, data);
    for (size_t i = 0; i < f->n_parts && !mapped; i++) mapped = map_holds(&f->parts[i], data);
    if (mapped) file_map_forget(data, bytes);
}

void model_file_close(struct model_file *f) {
    if (!f) return;
    name_index_close(&f->key_index);
    name_index_close(&f->tensor_index);
    mem_free(f->keys);
    mem_free(f->tensors);
    text_free(&f->made_up);
    for (size_t i = 0; i < f->n_owned; i++) mem_free(f->owned[i]);
    mem_free(f->owned);
    for (size_t i = 0; i < f->n_parts; i++) file_map_close(&f->parts[i]);
    mem_free(f->parts);
    if (f->mapped)
        file_map_close(&f->map);
    else
        mem_free(f->map.path);
    mem_free(f);
}

const char *model_file_path(const struct model_file *f) { return f->map.path; }
const char *model_file_kind(const struct model_file *f) { return f->kind; }
size_t model_file_bytes(const struct model_file *f) {
    size_t sum = f->map.size;
    for (size_t i = 0; i < f->n_parts; i++) sum += f->parts[i].size; // maps: they fit together
    return sum;
}
size_t model_file_tensor_count(const struct model_file *f) { return f->n_tensors; }

const struct file_tensor *model_file_tensor_at(const struct model_file *f, size_t i) {
    assert(i < f->n_tensors);
    return &f->tensors[i];
}

const struct file_tensor *model_file_tensor(const struct model_file *f, const char *name) {
    size_t i = name_index_find(&f->tensor_index, name, strlen(name), f->n_tensors);
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

// ---------------------------------------------------------------------------------------------------------------
// Metadata.

static const char *const kind_words[] = {
    [META_ABSENT] = "nothing", [META_BOOL] = "true or false", [META_INT] = "an integer",
    [META_REAL] = "a number",  [META_TEXT] = "a text",        [META_ARRAY] = "an array",
};
static_assert(COUNT_OF(kind_words) == META_ARRAY + 1, "one word per kind");

static const struct meta_entry *find_key(const struct model_file *f, const char *key) {
    size_t i = name_index_find(&f->key_index, key, strlen(key), f->n_keys);
    return i < f->n_keys ? &f->keys[i] : NULL;
}

// False when there is nothing to read, *ok then says whether that is fine.
static bool present(const struct model_file *f, const struct meta_entry *e, const char *key,
                    bool required, bool *ok, struct err *err) {
    if (e) return true;
    *ok = !required ||
          err_set(
              err,
              "%s has no key '%s', which this model needs: convert it again with a newer converter",
              path_end(f->map.path), key);
    return false;
}

static bool refuse_kind(const struct model_file *f, const char *key, enum meta_kind expected,
                        uint32_t type, struct err *err) {
    return err_set(err, "%s: key '%s' should be %s but is %s", path_end(f->map.path), key,
                   kind_words[expected], kind_words[gguf_type_kind(type)]);
}

// An integer of any width; a u64 beyond INT64_MAX arrives as INT64_MAX, which no caller's range
// includes by accident.
static int64_t value_int(uint32_t type, const unsigned char *p) {
    uint64_t x = bytes_int(p, gguf_type_bytes(type));
    switch (type) {
    case GGUF_I8:
        return (int8_t)x;
    case GGUF_I16:
        return (int16_t)x;
    case GGUF_I32:
        return (int32_t)x;
    case GGUF_I64:
        return (int64_t)x;
    default:
        return x > INT64_MAX ? INT64_MAX : (int64_t)x;
    }
}

static double value_real(uint32_t type, const unsigned char *p) {
    union {
        uint32_t u;
        float f;
    } single;
    union {
        uint64_t u;
        double d;
    } twice;
    switch (type) {
    case GGUF_F32:
        single.u = (uint32_t)bytes_int(p, 4);
        return (double)single.f;
    case GGUF_F64:
        twice.u = bytes_int(p, 8);
        return twice.d;
    case GGUF_U64:
        return (double)bytes_int(p, 8);
    default:
        return (double)value_int(type, p);
    }
}

enum meta_kind meta_kind(const struct model_file *f, const char *key) {
    const struct meta_entry *e = find_key(f, key);
    return e ? gguf_type_kind(e->type) : META_ABSENT;
}

bool meta_int(const struct model_file *f, const char *key, bool required, int64_t min, int64_t max,
              int64_t *value, struct err *err) {
    const struct meta_entry *e = find_key(f, key);
    bool ok;
    if (!present(f, e, key, required, &ok, err)) return ok;
    if (gguf_type_kind(e->type) != META_INT) return refuse_kind(f, key, META_INT, e->type, err);
    int64_t x = value_int(e->type, e->at);
    bool over = e->type == GGUF_U64 && bytes_int(e->at, 8) > INT64_MAX;
    if (over || x < min || x > max)
        return err_set(err, "%s: key '%s' is %" PRId64 "%s, expected %" PRId64 " to %" PRId64,
                       path_end(f->map.path), key, x, over ? " or more" : "", min, max);
    *value = x;
    return true;
}

bool meta_real(const struct model_file *f, const char *key, bool required, double min, double max,
               double *value, struct err *err) {
    const struct meta_entry *e = find_key(f, key);
    bool ok;
    if (!present(f, e, key, required, &ok, err)) return ok;
    enum meta_kind kind = gguf_type_kind(e->type);
    if (kind != META_REAL && kind != META_INT) return refuse_kind(f, key, META_REAL, e->type, err);
    double x = value_real(e->type, e->at);
    if (!isfinite(x) || x < min || x > max)
        return err_set(err, "%s: key '%s' is %g, expected %g to %g", path_end(f->map.path), key, x,
                       min, max);
    *value = x;
    return true;
}

bool meta_bool(const struct model_file *f, const char *key, bool required, bool *value,
               struct err *err) {
    const struct meta_entry *e = find_key(f, key);
    bool ok;
    if (!present(f, e, key, required, &ok, err)) return ok;
    if (e->type != GGUF_BOOL) return refuse_kind(f, key, META_BOOL, e->type, err);
    *value = e->at[0] != 0;
    return true;
}

bool meta_text(const struct model_file *f, const char *key, bool required, struct span *value,
               struct err *err) {
    const struct meta_entry *e = find_key(f, key);
    bool ok;
    if (!present(f, e, key, required, &ok, err)) return ok;
    if (e->type != GGUF_TEXT) return refuse_kind(f, key, META_TEXT, e->type, err);
    *value = (struct span){(const char *)e->at, (size_t)e->count};
    return true;
}

bool meta_array_open(const struct model_file *f, const char *key, enum meta_kind kind,
                     struct meta_array *a, struct err *err) {
    assert(kind == META_BOOL || kind == META_INT || kind == META_REAL || kind == META_TEXT);
    const struct meta_entry *e = find_key(f, key);
    bool ok;
    if (!present(f, e, key, true, &ok, err)) return ok;
    if (e->type != GGUF_ARRAY) return refuse_kind(f, key, META_ARRAY, e->type, err);
    enum meta_kind found = gguf_type_kind(e->item_type);
    if (found != kind && !(kind == META_REAL && found == META_INT))
        return err_set(err, "%s: each element of key '%s' should be %s but is %s",
                       path_end(f->map.path), key, kind_words[kind], kind_words[found]);
    *a = (struct meta_array){.kind = found, .type = e->item_type, .count = e->count, .at = e->at};
    return true;
}

bool meta_next_text(struct meta_array *a, struct span *out) {
    assert(a->kind == META_TEXT);
    if (a->taken == a->count) return false;
    uint64_t n = bytes_int(a->at, 8);
    *out = (struct span){(const char *)a->at + 8, (size_t)n};
    a->at += 8 + n;
    a->taken++;
    return true;
}

bool meta_next_real(struct meta_array *a, double *out) {
    assert(a->kind == META_REAL || a->kind == META_INT);
    if (a->taken == a->count) return false;
    *out = value_real(a->type, a->at);
    a->at += gguf_type_bytes(a->type);
    a->taken++;
    return true;
}

bool meta_next_int(struct meta_array *a, int64_t *out) {
    assert(a->kind == META_INT || a->kind == META_BOOL);
    if (a->taken == a->count) return false;
    *out = value_int(a->type, a->at);
    a->at += gguf_type_bytes(a->type);
    a->taken++;
    return true;
}

static void show_value(const struct meta_entry *e, char *buf, size_t cap) {
    static const char *const items[] = {"things",  "bools", "integers",
                                        "numbers", "texts", "arrays"};
    switch (gguf_type_kind(e->type)) {
    case META_BOOL:
        snprintf(buf, cap, "%s", e->at[0] ? "true" : "false");
        break;
    case META_INT:
        if (e->type == GGUF_U64)
            snprintf(buf, cap, "%" PRIu64, bytes_int(e->at, 8));
        else
            snprintf(buf, cap, "%" PRId64, value_int(e->type, e->at));
        break;
    case META_REAL:
        snprintf(buf, cap, "%.9g", value_real(e->type, e->at));
        break;
    case META_TEXT:
        span_shown((struct span){(const char *)e->at, (size_t)e->count}, buf, cap);
        break;
    default:
        snprintf(buf, cap, "[%" PRIu64 " %s]", e->count, items[gguf_type_kind(e->item_type)]);
    }
}

void meta_each(const struct model_file *f,
               void (*fn)(void *arg, const char *key, const char *value), void *arg) {
    struct text key = {0};
    for (size_t i = 0; i < f->n_keys; i++) {
        char value[200];
        show_value(&f->keys[i], value, sizeof value);
        text_clear(&key);
        text_add(&key, f->keys[i].key.p, f->keys[i].key.n);
        fn(arg, key.data, value);
    }
    text_free(&key);
}
