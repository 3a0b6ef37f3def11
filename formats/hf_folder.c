// hf_folder.c: a Hugging Face folder behind the one reader.
//
//     config.json                     the architecture (hf_config.c)
//     model.safetensors               the weights, or, when there are several files of them:
//     model.safetensors.index.json    { "weight_map": { tensor: file, ... } }
//     generation_config.json          which tokens end a text                          (may be absent)
//     chat_template.jinja             or in tokenizer_config.json                      (may be absent)
//     tokenizer.json                  named by the key lehr.tokenizer_json, read by tokenizer/
//
// Weights stay in their maps wherever GGUF has them in the same form. Copies, owned by the
// model_file: the rows of Q and K where GGUF turns adjacent pairs and the folder halves of a head
// (row h, 2i+j there is row h, j D/2 + i here), norms that count from one, transposed matrices, data
// that lie at an odd address, and experts, which GGUF has in one tensor of three dimensions. The
// divisors of Llama 3's rope become GGUF's tensor rope_freqs.weight. Of a model with eyes the text
// part is read; its kind says so.
//
// A file named by the index must be a plain name: nothing outside the folder is ever opened.
#include "formats/internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define CONFIG_BYTES_MAX ((size_t)16 << 20)
#define TEMPLATE_BYTES_MAX ((size_t)4 << 20)
#define SHARDS_MAX 1000 // looked up one by one
#define END_TOKENS_MAX 64

bool path_is_folder(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

struct shard {
    const char *name; // in the index, or the caller's
    struct st_file table;
    size_t listed; // tensors that the index puts here
};
struct weight { // an entry of the index
    size_t name_at, name_n;
    size_t shard;
};
struct stack { // a tensor that experts fill, one matrix each
    struct file_tensor t;
    char *data;
    int64_t filled;
};
struct loader {
    struct model_file *f;
    const char *folder;
    struct err *err;
    struct shard *shards;
    size_t n_shards, cap_shards;
    struct text names; // of the index: weights and files
    struct weight *weights;
    size_t n_weights, cap_weights;
    struct hf_config config;
    struct hf_model model;
    struct key_text keys;
    size_t bytes_of[DTYPE_COUNT + 1];
    struct stack *stacks;
    size_t n_stacks, cap_stacks;
};

// folder/name in a text that the caller frees.
static struct text join(const struct loader *l, const char *name) {
    struct text t = {0};
    size_t n = strlen(l->folder);
    text_fmt(&t, "%s%s%s", l->folder, n && l->folder[n - 1] == '/' ? "" : "/", name);
    return t;
}

static bool exists(const struct loader *l, const char *name) {
    struct text path = join(l, name);
    bool there = file_exists(path.data);
    text_free(&path);
    return there;
}

// The whole of a small file; the sentence of a failure names it. By a map, because that refuses what is no file: a pipe in
// the folder would wait for ever.
static bool slurp(const struct loader *l, const char *name, size_t limit, struct text *out) {
    struct text path = join(l, name);
    struct file_map map;
    bool good = file_map_open(&map, path.data, l->err);
    if (good && map.size > limit)
        good = err_set(l->err, "%s: is larger than the limit of %zu bytes", path.data, limit);
    if (good) text_add(out, (const char *)map.data, map.size);
    file_map_close(&map);
    text_free(&path);
    return good;
}

// ---------------------------------------------------------------------------------------------------------------
// Which files hold the weights.

static bool plain_name(const char *name) {
    static const char tail[] = ".safetensors";
    size_t n = strlen(name), t = sizeof tail - 1;
    return n > t && n <= 255 && !strcmp(name + n - t, tail) && name[0] != '.' && !strpbrk(name, "/\\") &&
           !name_problem((struct span){name, n});
}

static size_t find_shard(struct loader *l, const char *name) {
    size_t i = 0;
    while (i < l->n_shards && strcmp(l->shards[i].name, name)) i++;
    return i;
}

static bool add_weight(struct loader *l, const char *name, const struct text *file) {
    char shown[SHOWN];
    if (strlen(file->data) != file->len || !plain_name(file->data))
        return err_set(l->err, "its file '%s' is no plain name of a .safetensors file in this folder",
                       span_shown((struct span){file->data, file->len}, shown, sizeof shown));
    size_t shard = find_shard(l, file->data);
    if (shard == SHARDS_MAX) return err_set(l->err, "names more than %d files", SHARDS_MAX);
    if (shard == l->n_shards) {
        mem_grow((void **)&l->shards, &l->cap_shards, l->n_shards + 1, sizeof *l->shards, "list of shards");
        l->shards[l->n_shards++] = (struct shard){.name = mem_text(file->data)};
    }
    if (l->n_weights == TENSORS_MAX) return err_set(l->err, "lists too many tensors");
    mem_grow((void **)&l->weights, &l->cap_weights, l->n_weights + 1, sizeof *l->weights, "index of shards");
    l->weights[l->n_weights++] = (struct weight){l->names.len, strlen(name), shard};
    text_str(&l->names, name);
    l->shards[shard].listed++;
    return true;
}

static bool read_weight_map(struct loader *l, struct json *j, bool *told) {
    char name[ST_NAME_MAX + 1];
    struct text file = {0};
    bool good = json_object(j);
    while (good && json_key(j, name, sizeof name)) {
        good = json_string(j, &file);
        if (good && !add_weight(l, name, &file)) {
            err_in(l->err, "tensor '%.90s'", name);
            *told = true;
            good = false;
        }
    }
    text_free(&file);
    return good && !j->bad;
}

static bool read_index(struct loader *l, const struct text *bytes) {
    struct json j;
    char key[ST_NAME_MAX + 1];
    bool told = false, found = false, good;
    json_open(&j, bytes->data, bytes->len);
    good = json_object(&j);
    while (good && json_key(&j, key, sizeof key)) {
        bool map = !strcmp(key, "weight_map");
        if (map && found) return err_set(l->err, "'weight_map' is there twice");
        good = map ? read_weight_map(l, &j, &told) : json_skip(&j);
        found = found || map;
    }
    if (told || !json_done(&j, l->err)) return false;
    return found || err_set(l->err, "has no 'weight_map'");
}

#define INDEX_NAME "model.safetensors.index.json"

static bool open_index(struct loader *l) {
    struct text bytes = {0};
    bool good = slurp(l, INDEX_NAME, (size_t)ST_HEADER_MAX, &bytes);
    if (good && !read_index(l, &bytes)) good = err_in(l->err, INDEX_NAME);
    text_free(&bytes);
    return good;
}

static void one_shard(struct loader *l, const char *name) {
    mem_grow((void **)&l->shards, &l->cap_shards, 1, sizeof *l->shards, "list of shards");
    l->shards[l->n_shards++] = (struct shard){.name = mem_text(name)};
}

// What else lies in a folder without safetensors says what to do.
static bool refuse_folder(struct loader *l) {
    struct file_list list;
    const char *hint = "expected model.safetensors or " INDEX_NAME;
    if (!file_list_open(&list, l->folder, l->err)) return false;
    bool gguf = false;
    for (size_t i = 0; i < list.count; i++) {
        size_t n = strlen(list.names[i]);
        gguf = gguf || (n > 5 && !strcmp(list.names[i] + n - 5, ".gguf"));
        if (!strncmp(list.names[i], "pytorch_model", 13)) hint = "it holds a PyTorch pickle: convert it to safetensors";
    }
    if (gguf) hint = "it holds GGUF files: name one of them";
    file_list_free(&list);
    return err_set(l->err, "is a folder without weights that this program reads: %s", hint);
}

static bool list_shards(struct loader *l, const char *only) {
    if (only) {
        if (exists(l, INDEX_NAME)) {
            if (!open_index(l)) return false;
            if (find_shard(l, only) < l->n_shards) return true; // a shard stands for all of them
            for (size_t i = 0; i < l->n_shards; i++) mem_free((char *)l->shards[i].name);
            l->n_shards = l->n_weights = 0;
        }
        one_shard(l, only);
        return true;
    }
    if (exists(l, "model.safetensors")) return one_shard(l, "model.safetensors"), true;
    if (exists(l, INDEX_NAME)) return open_index(l);
    return refuse_folder(l);
}

static bool open_shards(struct loader *l) {
    struct model_file *f = l->f;
    f->parts = mem_array(l->n_shards, sizeof *f->parts, "maps of shards");
    for (size_t i = 0; i < l->n_shards; i++) {
        struct text path = join(l, l->shards[i].name);
        bool good = file_map_open(&f->parts[i], path.data, l->err);
        text_free(&path);
        if (!good) return false;
        f->n_parts++;
        const struct file_map *map = &f->parts[i];
        if (map->size >= 23 && !memcmp(map->data, "version https://git-lfs", 23))
            return err_set(l->err, "%s is a git-LFS pointer, not the weights it points to: fetch the "
                                   "file itself (git lfs pull)", l->shards[i].name);
        if (!safetensors_read(map->data, map->size, &l->shards[i].table, l->err))
            return err_in(l->err, "%s", l->shards[i].name);
    }
    return true;
}

static size_t find_in(const struct st_file *s, struct span name) {
    return name_index_find(&s->index, name.p, name.n, s->n);
}

// The index and the tables agree, tensor by tensor.
static bool check_index(struct loader *l) {
    struct name_row *rows = mem_array(l->n_weights, sizeof *rows, "index of shards");
    char shown[SHOWN];
    for (size_t i = 0; i < l->n_weights; i++)
        rows[i] = (struct name_row){l->names.data + l->weights[i].name_at, l->weights[i].name_n, i};
    struct name_index index;
    size_t twice;
    name_index_open(&index, rows, l->n_weights, &twice);
    bool good = twice == l->n_weights;
    if (!good) {
        struct span name = {l->names.data + l->weights[twice].name_at, l->weights[twice].name_n};
        err_set(l->err, INDEX_NAME ": tensor '%s' is there twice", span_shown(name, shown, sizeof shown));
    }
    for (size_t i = 0; good && i < l->n_weights; i++) {
        const struct shard *s = &l->shards[l->weights[i].shard];
        struct span name = {l->names.data + l->weights[i].name_at, l->weights[i].name_n};
        if (find_in(&s->table, name) == s->table.n)
            good = err_set(l->err, INDEX_NAME " puts tensor '%s' into %s, which does not have it",
                           span_shown(name, shown, sizeof shown), s->name);
    }
    for (size_t i = 0; good && i < l->n_shards; i++) {
        const struct shard *s = &l->shards[i];
        for (size_t t = 0; good && s->listed != s->table.n && t < s->table.n; t++) {
            struct span name = safetensors_name(&s->table, &s->table.tensors[t]);
            if (name_index_find(&index, name.p, name.n, l->n_weights) == l->n_weights)
                good = err_set(l->err, "%s has tensor '%s', which " INDEX_NAME " does not list", s->name,
                               span_shown(name, shown, sizeof shown));
        }
    }
    name_index_close(&index);
    return good;
}

// ---------------------------------------------------------------------------------------------------------------
// Tensors.

struct pairing {
    const unsigned char *from;
    unsigned char *to;
    size_t row_bytes;
    int64_t head; // rows of a head
};

static void pair_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct pairing *p = arg;
    (void)thread;
    for (int64_t r = lo; r < hi; r++) {
        int64_t h = r / p->head, in = r % p->head, from = h * p->head + in % 2 * (p->head / 2) + in / 2;
        memcpy(p->to + (size_t)r * p->row_bytes, p->from + (size_t)from * p->row_bytes, p->row_bytes);
    }
}

static bool pair_heads(struct loader *l, struct file_tensor *t, int64_t heads) {
    if (t->size[0] % heads || t->size[0] / heads % 2)
        return err_set(l->err, "has %" PRId64 " rows, which are no %" PRId64 " heads of an even size",
                       t->size[0], heads);
    struct pairing p = {.from = t->data, .head = t->size[0] / heads};
    p.row_bytes = t->bytes / (size_t)t->size[0];
    p.to = model_file_own(l->f, t->bytes, "rows of queries and keys in adjacent pairs");
    pool_for(t->size[0], 64, pair_rows, &p);
    t->data = p.to;
    return true;
}

// Row h, part, d of heads that hold queries, keys and values becomes row part, h, d.
static bool part_heads(struct loader *l, struct file_tensor *t) {
    int64_t H = l->model.H, D = l->model.D;
    if (t->size[0] != 3 * H * D)
        return err_set(l->err, "has %" PRId64 " rows, expected 3 for each of %" PRId64 " heads of %" PRId64, t->size[0], H, D);
    size_t piece = t->bytes / (size_t)(3 * H);
    char *to = model_file_own(l->f, t->bytes, "rows of queries, keys and values");
    for (size_t h = 0; h < (size_t)H; h++)
        for (size_t part = 0; part < 3; part++)
            memcpy(to + (part * (size_t)H + h) * piece, (const char *)t->data + (3 * h + part) * piece, piece);
    t->data = to;
    return true;
}

// dtype of a norm is F32 from here on.
static void add_one(struct loader *l, struct file_tensor *t) {
    size_t n = t->bytes / (size_t)dtype_row(t->dtype)->block_bytes;
    float *x = model_file_own(l->f, n * sizeof *x, "norms that count from one");
    dtype_row(t->dtype)->to_f32(t->data, x, (int64_t)n);
    for (size_t i = 0; i < n; i++) x[i] += 1;
    t->dtype = DTYPE_F32;
    t->type_name = dtype_row(DTYPE_F32)->name;
    t->bytes = n * sizeof *x;
    t->data = x;
}

// GPT-2 keeps a matrix as [inputs, outputs].
static bool transpose(struct loader *l, struct file_tensor *t) {
    if (t->n_dims != 2) return err_set(l->err, "has %d dimensions, expected a matrix", t->n_dims);
    size_t rows = (size_t)t->size[0], cols = (size_t)t->size[1], width = (size_t)dtype_row(t->dtype)->block_bytes;
    const char *from = t->data;
    char *to = model_file_own(l->f, t->bytes, "transposed matrices");
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) memcpy(to + (c * rows + r) * width, from + (r * cols + c) * width, width);
    t->size[0] = (int64_t)cols, t->size[1] = (int64_t)rows;
    t->data = to;
    return true;
}

static bool change_tensor(struct loader *l, struct file_tensor *t, enum hf_change change) {
    if (t->dtype == DTYPE_COUNT || t->dtype == DTYPE_I32) return true; // the model refuses it by name
    size_t width = (size_t)dtype_row(t->dtype)->block_bytes;
    if ((uintptr_t)t->data % width) {
        void *copy = model_file_own(l->f, t->bytes, "weights from an odd address");
        memcpy(copy, t->data, t->bytes);
        t->data = copy;
    }
    if (change == HF_ROWS_Q) return pair_heads(l, t, l->model.H);
    if (change == HF_ROWS_K) return pair_heads(l, t, l->model.G);
    if (change == HF_TRANSPOSE) return transpose(l, t);
    if (change == HF_HEADS) return part_heads(l, t);
    if (change == HF_NORM) add_one(l, t);
    return true;
}

static bool is_float(enum dtype d) { return d == DTYPE_F32 || d == DTYPE_F16 || d == DTYPE_BF16; }

// Copies a matrix into the tensor of its kind and layer. The names are unique, so a tensor that got
// as many as there are experts has each of them. All of them lie in the files: that bounds the copy.
static bool stack_expert(struct loader *l, const struct file_tensor *t, int64_t expert) {
    size_t i = 0, bytes;
    while (i < l->n_stacks && strcmp(l->stacks[i].t.name, t->name)) i++;
    if (t->n_dims != 2 || !is_float(t->dtype))
        return err_set(l->err, "has type %s and %d dimensions, expected a matrix of F32, F16 or BF16", t->type_name,
                       t->n_dims);
    if (i == l->n_stacks) {
        if (!size_mul(t->bytes, (size_t)l->model.E, &bytes) || bytes > model_file_bytes(l->f))
            return err_set(l->err, "there cannot be %" PRId64 " experts of this size in %zu bytes of weights",
                           l->model.E, model_file_bytes(l->f));
        mem_grow((void **)&l->stacks, &l->cap_stacks, i + 1, sizeof *l->stacks, "tensors of experts");
        struct stack s = {.t = *t, .data = model_file_own(l->f, bytes, "experts of a layer")};
        s.t.n_dims = 3;
        s.t.size[0] = l->model.E, s.t.size[1] = t->size[0], s.t.size[2] = t->size[1];
        s.t.bytes = bytes;
        s.t.data = s.data;
        l->stacks[l->n_stacks++] = s;
    }
    struct stack *s = &l->stacks[i];
    if (s->t.dtype != t->dtype || s->t.size[1] != t->size[0] || s->t.size[2] != t->size[1])
        return err_set(l->err, "differs in shape or type from another expert of its layer");
    memcpy(s->data + (size_t)expert * t->bytes, t->data, t->bytes);
    s->filled++;
    return true;
}

static void append(struct loader *l, const struct file_tensor *t) {
    struct model_file *f = l->f;
    mem_grow((void **)&f->tensors, &f->cap_tensors, f->n_tensors + 1, sizeof *t, "table of tensors");
    f->tensors[f->n_tensors++] = *t;
    l->bytes_of[t->dtype] += t->bytes;
}

static bool finish_stacks(struct loader *l) {
    for (size_t i = 0; i < l->n_stacks; i++) {
        const struct stack *s = &l->stacks[i];
        if (s->filled != l->model.E)
            return err_set(l->err, "%s has %" PRId64 " experts in the folder, config.json says %" PRId64, s->t.name,
                           s->filled, l->model.E);
        append(l, &s->t);
    }
    return true;
}

// gate and up projection of every expert lie one after the other in [E, 2 F, C], of a shared one in [2 F, C].
static bool split_halves(struct loader *l, struct file_tensor *t) {
    bool stacked = !strstr(t->name, "shexp");
    if (t->n_dims != 2 + stacked || (stacked && t->size[0] != l->model.E) || t->size[stacked] % 2 || !is_float(t->dtype))
        return err_set(l->err, stacked ? "is no [%" PRId64 ", an even number, width] of F32, F16 or BF16"
                                       : "is no [an even number, width] of F32, F16 or BF16", l->model.E);
    struct file_tensor half[2] = {*t, *t};
    size_t mats = stacked ? (size_t)t->size[0] : 1, one = t->bytes / mats / 2;
    hf_up_beside(t->name, half[1].name);
    for (size_t k = 0; k < 2; k++) {
        char *to = model_file_own(l->f, t->bytes / 2, "experts of a layer");
        for (size_t e = 0; e < mats; e++)
            memcpy(to + e * one, (const char *)t->data + (2 * e + k) * one, one);
        half[k].size[stacked] /= 2;
        half[k].bytes /= 2;
        half[k].data = to;
        append(l, &half[k]);
    }
    return true;
}

// Columns first, first + step, ... of each of the mats matrices [rows, cols] of t as rows.
static char *turn_columns(struct loader *l, const struct file_tensor *t, size_t mats, size_t rows, size_t cols, size_t first,
                          size_t step) {
    size_t width = (size_t)dtype_row(t->dtype)->block_bytes;
    char *out = model_file_own(l->f, mats * rows * (cols / step) * width, "experts of a layer"), *to = out;
    for (size_t e = 0; e < mats; e++)
        for (size_t c = first; c < cols; c += step)
            for (size_t r = 0; r < rows; r++, to += width)
                memcpy(to, (const char *)t->data + ((e * rows + r) * cols + c) * width, width);
    return out;
}

// gpt-oss: experts as [E, in, out], gate and up projection in turn.
static bool turn_experts(struct loader *l, struct file_tensor *t, enum hf_change change) {
    size_t E = (size_t)l->model.E, last = (size_t)t->size[t->n_dims - 1], step = change == HF_INTERLEAVED ? 2 : 1;
    bool bias = t->n_dims == 2;
    if ((!bias && t->n_dims != 3) || t->size[0] != l->model.E || last % step || !is_float(t->dtype))
        return err_set(l->err, "is no tensor of %" PRId64 " experts in F32, F16 or BF16", l->model.E);
    size_t rows = bias ? 1 : (size_t)t->size[1];
    for (size_t k = 0; k < step; k++) {
        struct file_tensor out = *t;
        if (k) hf_up_beside(t->name, out.name);
        out.size[1] = (int64_t)(last / step);
        if (!bias) out.size[2] = (int64_t)rows;
        out.bytes = t->bytes / step;
        out.data = turn_columns(l, t, E, rows, last, k, step);
        append(l, &out);
    }
    return true;
}

static bool add_tensor(struct loader *l, const struct shard *s, const struct file_map *map,
                       const struct st_tensor *from) {
    struct file_tensor t = {.dtype = from->dtype, .type_name = from->type, .n_dims = from->n_dims};
    struct hf_place place;
    char shown[SHOWN];
    struct span name = safetensors_name(&s->table, from);
    if (!hf_tensor_name(&l->model, name, &place, l->err)) return err_in(l->err, "%s", s->name);
    if (place.change == HF_SKIP) {
        if (!place.gguf[0] && (l->model.family->traits & HF_TEXT_PART))
            snprintf(l->f->kind, sizeof l->f->kind, "safetensors, text part only");
        return true;
    }
    memcpy(t.name, place.gguf, sizeof t.name);
    span_shown(name, shown, sizeof shown);
    bool fits = from->n_dims >= 1 && from->n_dims <= DIMS_MAX;
    for (int d = 0; fits && d < from->n_dims; d++) {
        t.size[d] = from->size[d];
        fits = from->size[d] >= 1 && from->size[d] < DIM_LIMIT;
    }
    if (!fits)
        return err_set(l->err, "%s: tensor '%s' has an empty dimension, or not 1 to %d of them", s->name,
                       shown, DIMS_MAX);
    t.data = map->data + from->begin;
    t.bytes = t.dtype == DTYPE_COUNT ? 0 : from->bytes;
    if (place.change == HF_VECTOR && t.n_dims == 2 && t.size[0] == 1) {
        t.n_dims = 1;
        t.size[0] = t.size[1], t.size[1] = 0;
    }
    bool turned = place.change == HF_INTERLEAVED || place.change == HF_TURNED;
    bool good = place.change == HF_EXPERT   ? stack_expert(l, &t, place.expert)
                : place.change == HF_HALVES ? split_halves(l, &t)
                : turned                    ? turn_experts(l, &t, place.change)
                                            : change_tensor(l, &t, place.change);
    if (!good) return err_in(l->err, "%s: tensor '%s'", s->name, shown);
    if (place.change != HF_EXPERT && place.change != HF_HALVES && !turned) append(l, &t);
    return true;
}

// Llama 3's stretched rope as divisors of the frequencies: waves shorter than ctx/high keep, those
// longer than ctx/low are divided by factor, between them the frequency goes over linearly.
static void add_rope_divisors(struct loader *l) {
    const struct hf_model *m = &l->model;
    int64_t half = m->turned / 2;
    float *x = model_file_own(l->f, (size_t)half * sizeof *x, "rope divisors");
    for (int64_t i = 0; i < half; i++) {
        double wave = 2 * 3.14159265358979323846 * pow(m->theta, 2.0 * (double)i / (double)m->turned);
        double turns = (double)m->llama3_ctx / wave;
        double s = (turns - m->llama3_low) / (m->llama3_high - m->llama3_low);
        s = s < 0 ? 0 : s > 1 ? 1 : s;
        x[i] = (float)(1 / ((1 - s) / m->llama3_factor + s));
    }
    struct file_tensor t = {.name = "rope_freqs.weight", .dtype = DTYPE_F32, .type_name = "F32", .n_dims = 1,
                            .size = {half}, .data = x, .bytes = (size_t)half * sizeof *x};
    append(l, &t);
}

// LongRoPE's arrays of config.json as GGUF has them.
static bool add_long_factors(struct loader *l) {
    static const char *const names[] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    int64_t half = l->model.turned / 2;
    for (int i = 0; i < 2; i++) {
        const struct hf_value *v = l->model.long_factors[i];
        struct json j;
        json_open(&j, v->at, v->n);
        float *x = model_file_own(l->f, (size_t)half * sizeof *x, "rope divisors");
        bool good = json_array(&j);
        int64_t n = 0;
        for (; good && n < half && json_item(&j); n++) {
            double d = 0;
            good = json_number(&j, &d) && d >= 1e-3 && d <= 1e9;
            x[n] = (float)d;
        }
        if (!good || n != half || json_item(&j) || j.bad)
            return err_set(l->err, "config.json: %s of the rope scaling are no %" PRId64 " divisors above 0",
                           i ? "the long factors" : "the short factors", half);
        struct file_tensor t = {.dtype = DTYPE_F32, .type_name = "F32", .n_dims = 1, .size = {half}, .data = x,
                                .bytes = (size_t)half * sizeof *x};
        snprintf(t.name, sizeof t.name, "%s", names[i]);
        append(l, &t);
    }
    return true;
}

static bool make_tensors(struct loader *l) {
    for (size_t i = 0; i < l->n_shards; i++)
        for (size_t t = 0; t < l->shards[i].table.n; t++)
            if (!add_tensor(l, &l->shards[i], &l->f->parts[i], &l->shards[i].table.tensors[t])) return false;
    if (!finish_stacks(l)) return false;
    if (l->model.llama3_factor > 0) add_rope_divisors(l);
    if (l->model.long_factors[0] && !add_long_factors(l)) return false;
    size_t twice;
    return model_file_index(l->f, &twice) ||
           err_set(l->err, "two tensors of the folder are both %s", l->f->tensors[twice].name);
}

// ---------------------------------------------------------------------------------------------------------------
// Keys beside the architecture's.

// A number or a list of numbers.
static bool read_ids(struct hf_config *c, const char *path, int64_t *ids, size_t *n, struct err *err) {
    struct hf_value *v = hf_find(c, path);
    if (!v) return true;
    struct json j;
    json_open(&j, v->at, v->n);
    bool list = v->kind == JSON_ARRAY, good = !list || json_array(&j);
    for (*n = 0; good && *n < END_TOKENS_MAX && (list ? json_item(&j) : *n == 0); ++*n)
        good = json_integer(&j, &ids[*n]) && ids[*n] >= -1 && ids[*n] <= 1 << 22;
    return (good && !j.bad) || err_set(err, "'%s' is neither a token id nor a list of at most %d", path,
                                       END_TOKENS_MAX);
}

// generation_config.json is about generating, so it wins over config.json.
static bool put_special_ids(struct loader *l) {
    struct hf_config g = {0};
    int64_t end[END_TOKENS_MAX], begin[END_TOKENS_MAX];
    size_t n_end = 0, n_begin = 0;
    if (!read_ids(&l->config, "eos_token_id", end, &n_end, l->err) ||
        !read_ids(&l->config, "bos_token_id", begin, &n_begin, l->err))
        return err_in(l->err, "config.json");
    bool good = true;
    if (exists(l, "generation_config.json")) {
        good = slurp(l, "generation_config.json", CONFIG_BYTES_MAX, &g.bytes);
        if (good && (!hf_config_parse(&g, l->err) || !read_ids(&g, "eos_token_id", end, &n_end, l->err) ||
                     !read_ids(&g, "bos_token_id", begin, &n_begin, l->err)))
            good = err_in(l->err, "generation_config.json");
    }
    hf_config_free(&g);
    if (!good) return false;
    if (n_begin && begin[0] >= 0) key_u32(&l->keys, "tokenizer.ggml.bos_token_id", begin[0]);
    if (n_end && end[0] >= 0) key_u32(&l->keys, "tokenizer.ggml.eos_token_id", end[0]);
    if (n_end > 1) key_i32s(&l->keys, "lehr.eos_token_ids", end, n_end);
    return true;
}

struct tokenizer_words { // of tokenizer_config.json
    struct text template;
    bool has_template;
    int adds_bos, adds_eos; // -1: not said
};

// [{"name": "default", "template": ...}, ...]: the one named default.
static bool read_templates(struct json *j, struct tokenizer_words *w) {
    struct text name = {0}, text = {0};
    bool good = json_array(j);
    while (good && json_item(j)) {
        char key[64];
        good = json_object(j);
        while (good && json_key(j, key, sizeof key))
            good = !strcmp(key, "name")       ? json_string(j, &name)
                   : !strcmp(key, "template") ? json_string(j, &text)
                                              : json_skip(j);
        if (!good || !name.data || !text.data || strcmp(name.data, "default")) continue;
        text_clear(&w->template);
        text_add(&w->template, text.data, text.len);
        w->has_template = true;
    }
    text_free(&name);
    text_free(&text);
    return good && !j->bad;
}

static bool read_tokenizer_words(struct json *j, struct tokenizer_words *w) {
    char key[160];
    bool x, good = json_object(j);
    while (good && json_key(j, key, sizeof key)) {
        enum json_kind kind = json_peek(j);
        bool flag = kind == JSON_TRUE || kind == JSON_FALSE;
        if (flag && !strcmp(key, "add_bos_token")) {
            if ((good = json_bool(j, &x))) w->adds_bos = x;
        } else if (flag && !strcmp(key, "add_eos_token")) {
            if ((good = json_bool(j, &x))) w->adds_eos = x;
        } else if (kind == JSON_STRING && !strcmp(key, "chat_template")) {
            good = w->has_template = json_string(j, &w->template);
        } else if (kind == JSON_ARRAY && !strcmp(key, "chat_template")) {
            good = read_templates(j, w);
        } else {
            good = json_skip(j);
        }
    }
    return good && !j->bad;
}

static bool put_tokenizer_words(struct loader *l) {
    struct tokenizer_words w = {.adds_bos = -1, .adds_eos = -1};
    bool good = true;
    if (exists(l, "tokenizer_config.json")) {
        struct text bytes = {0};
        struct json j;
        good = slurp(l, "tokenizer_config.json", CONFIG_BYTES_MAX, &bytes);
        json_open(&j, bytes.data, bytes.len);
        if (good) read_tokenizer_words(&j, &w);
        if (good && !json_done(&j, l->err)) good = err_in(l->err, "tokenizer_config.json");
        text_free(&bytes);
    }
    if (good && exists(l, "chat_template.jinja")) {
        text_clear(&w.template);
        good = w.has_template = slurp(l, "chat_template.jinja", TEMPLATE_BYTES_MAX, &w.template);
    }
    if (good && w.has_template && w.template.len)
        key_text_add(&l->keys, "tokenizer.chat_template", w.template.data, w.template.len);
    if (good && w.adds_bos >= 0) key_bool(&l->keys, "tokenizer.ggml.add_bos_token", w.adds_bos);
    if (good && w.adds_eos >= 0) key_bool(&l->keys, "tokenizer.ggml.add_eos_token", w.adds_eos);
    text_free(&w.template);
    return good;
}

static void put_names(struct loader *l) {
    const char *end = l->folder + strlen(l->folder), *slash;
    while (end > l->folder && end[-1] == '/') end--;
    for (slash = end; slash > l->folder && slash[-1] != '/';) slash--;
    size_t n = (size_t)(end - slash);
    bool fit = n && !(n <= 2 && slash[0] == '.');
    key_text_add(&l->keys, "general.name", fit ? slash : l->model.family->arch,
                 fit ? n : strlen(l->model.family->arch));
    enum dtype most = DTYPE_F32;
    for (int d = 0; d < DTYPE_COUNT; d++)
        if (l->bytes_of[d] > l->bytes_of[most]) most = (enum dtype)d;
    if (dtype_row(most)->gguf_file_type >= 0)
        key_u32(&l->keys, "general.file_type", dtype_row(most)->gguf_file_type);
    if (!exists(l, "tokenizer.json")) return;
    struct text path = join(l, "tokenizer.json");
    key_text_add(&l->keys, "lehr.tokenizer_json", path.data, path.len);
    text_free(&path);
}

// ---------------------------------------------------------------------------------------------------------------

static bool read_config(struct loader *l) {
    if (!exists(l, "config.json"))
        return err_set(l->err, "has no config.json%s: weights alone do not say what they are",
                       exists(l, "model.safetensors") ? " beside model.safetensors" : " in its folder");
    if (!slurp(l, "config.json", CONFIG_BYTES_MAX, &l->config.bytes)) return false;
    return (hf_config_parse(&l->config, l->err) &&
            hf_config_keys(&l->config, &l->model, &l->keys, l->err)) ||
           err_in(l->err, "config.json");
}

bool hf_read(struct model_file *f, const char *folder, const char *only, struct err *err) {
    struct loader l = {.f = f, .folder = folder, .err = err, .keys = {.to = &f->made_up}};
    snprintf(f->kind, sizeof f->kind, "safetensors");
    f->alignment = ALIGNMENT_MIN;
    bool good = (only || exists(&l, "config.json") || exists(&l, "model.safetensors") ||
                 exists(&l, INDEX_NAME) || refuse_folder(&l)) &&
                read_config(&l) && list_shards(&l, only) && open_shards(&l) && (!l.n_weights || check_index(&l)) &&
                make_tensors(&l) && put_special_ids(&l) && put_tokenizer_words(&l);
    if (good) {
        put_names(&l);
        good = key_text_read(&l.keys, f, err);
    }
    for (size_t i = 0; i < l.n_shards; i++) {
        safetensors_free(&l.shards[i].table);
        mem_free((char *)l.shards[i].name);
    }
    mem_free(l.shards);
    mem_free(l.stacks);
    mem_free(l.weights);
    text_free(&l.names);
    hf_config_free(&l.config);
    return good;
}
