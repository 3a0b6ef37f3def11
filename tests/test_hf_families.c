// test_hf_families.c: a folder of every family opens as the model that transformers computes, and keeps computing it
// when written as GGUF and as a folder again.
//
// Goldens: tests/golden/hf, made by tests/make_transformers_goldens.py, which says what the files hold. The weights are
// made here by the same rule: mean + scale * noise(name, i).
#include "formats/internal.h"
#include "model/internal.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const names[] = {
    "llama",  "llama_linear", "llama_yarn", "mistral", "smollm3",    "qwen2", "qwen3", "qwen3moe", "gemma",
    "gemma2", "gemma3",       "granite",    "granitemoe", "olmo2", "olmoe", "mixtral", "phi3",     "gpt2",
};

// What two f32 engines may differ by, whose sums, exponentials and angles round differently; logits reach 12.
static const double tolerance = 2e-4;

static char dir[64];
static void make_dir(void) {
    strcpy(dir, "/tmp/lehr-hf-families-XXXXXX");
    cr_assert(mkdtemp(dir));
}
static void drop_dir(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    cr_assert(system(command) == 0);
}
TestSuite(hf_families, .init = make_dir, .fini = drop_dir);

// --- a folder of a golden ----------------------------------------------------------------------------------------------

static struct text golden(const char *name, const char *end) {
    char path[128];
    struct err e = {{0}};
    struct text t = {0};
    snprintf(path, sizeof path, "tests/golden/hf/%s.%s", name, end);
    cr_assert(file_read_all(path, 1 << 20, &t, &e), "%s", e.text);
    return t;
}

static uint64_t name_hash(const char *name) { // FNV-1a
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (; *name; name++) h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001B3);
    return h;
}

static double noise(uint64_t hash, uint64_t i) { // SplitMix64
    uint64_t x = hash + (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    x ^= x >> 31;
    return (double)(x >> 40) / 8388608 - 1;
}

struct made { // a .safetensors
    struct text head, data;
};

// inside: what stands for "model." in the file; the numbers follow from the name without it.
static void add_tensor(struct made *m, const char *inside, const char *name, double mean, double scale, const int *size,
                       int n_dims) {
    size_t at = m->data.len, count = 1;
    bool moved = inside && !strncmp(name, "model.", 6);
    text_fmt(&m->head, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[", m->head.len ? "," : "", moved ? inside : "",
             moved ? name + 6 : name);
    for (int d = 0; d < n_dims; d++) {
        text_fmt(&m->head, "%s%d", d ? "," : "", size[d]);
        count *= (size_t)size[d];
    }
    uint64_t hash = name_hash(name);
    for (size_t i = 0; i < count; i++) {
        float x = (float)(mean + scale * noise(hash, i));
        text_add(&m->data, (const char *)&x, sizeof x);
    }
    text_fmt(&m->head, "],\"data_offsets\":[%zu,%zu]}", at, m->data.len);
}

static void put(const char *folder, const char *name, const struct text *t) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(t->data, 1, t->len, f) == t->len && !fclose(f));
}

static int layers_of(const struct text *config) {
    const char *at = strstr(config->data, "\"num_hidden_layers\": ");
    if (!at) at = strstr(config->data, "\"n_layer\": ");
    cr_assert(at);
    return atoi(strchr(at, ':') + 1);
}

// One line of NAME.tensors; a '*' stands for every layer.
static void add_line(struct made *m, const char *inside, const char *line, int layers) {
    char pattern[128], name[160];
    int size[3], used = 0;
    double mean, scale;
    cr_assert(sscanf(line, "%127s %lf %lf%n", pattern, &mean, &scale, &used) == 3, "%s", line);
    int n_dims = sscanf(line + used, "%d %d %d", &size[0], &size[1], &size[2]);
    const char *star = strchr(pattern, '*');
    for (int l = 0; l < (star ? layers : 1); l++) {
        if (star) snprintf(name, sizeof name, "%.*s%d%s", (int)(star - pattern), pattern, l, star + 1);
        else snprintf(name, sizeof name, "%s", pattern);
        add_tensor(m, inside, name, mean, scale, size, n_dims);
    }
}

// inside: NULL, or where a model with eyes keeps its text part.
static void make_folder(const char *name, const char *folder, const char *inside) {
    static const int eyes[] = {3, 5};
    struct text config = golden(name, "json"), tensors = golden(name, "tensors"), file = {0};
    struct made m = {{0}, {0}};
    int layers = layers_of(&config);
    for (char *line = strtok(tensors.data, "\n"); line; line = strtok(NULL, "\n")) add_line(&m, inside, line, layers);
    if (inside) {
        struct text text = config;
        config = (struct text){0};
        text_fmt(&config, "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"text_config\":%s,\"eos_token_id\":[1,6],"
                          "\"vision_config\":{\"hidden_size\":5,\"image_size\":9},\"mm_tokens_per_image\":4}", text.data);
        text_free(&text);
        add_tensor(&m, NULL, "vision_tower.vision_model.x.weight", 0, 1, eyes, 2);
        add_tensor(&m, NULL, "model.multi_modal_projector.y", 0, 1, eyes, 2);
    }
    size_t pad = (8 - (m.head.len + 2) % 8) % 8;
    uint64_t length = m.head.len + 2 + pad;
    text_add(&file, (const char *)&length, sizeof length);
    text_fmt(&file, "{%s}%*s", m.head.data, (int)pad, "");
    text_add(&file, m.data.data, m.data.len);
    cr_assert(!mkdir(folder, 0700));
    put(folder, "model.safetensors", &file);
    put(folder, "config.json", &config);
    text_free(&config), text_free(&tensors), text_free(&file), text_free(&m.head), text_free(&m.data);
}

// --- logits ------------------------------------------------------------------------------------------------------------

struct expected {
    struct text bytes;
    int32_t n, prompt, samples;
    const int32_t *ids;
    const float *rows; // samples, log-sum-exp, the bits of the first choice
};

static struct expected open_expected(const char *name) {
    struct expected x = {.bytes = golden(name, "logits")};
    const int32_t *head = (const int32_t *)(const void *)x.bytes.data;
    x.n = head[0], x.prompt = head[1], x.samples = head[2];
    x.ids = head + 3;
    x.rows = (const float *)(const void *)(x.ids + x.n);
    cr_assert(x.bytes.len == 4 * (size_t)(3 + x.n + x.n * (x.samples + 2)));
    return x;
}

static struct model_file *open_file(const char *path) {
    struct err e = {{0}};
    struct model_file *f = model_file_open(path, &e);
    cr_assert(f, "%s: %s", path, e.text);
    return f;
}

// The prompt in one piece, then token by token; [n,V], to be freed.
static float *logits_of(const struct model_file *f, const struct expected *x, int64_t *V) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(NULL, &e);
    struct model *m = b ? model_load(f, b, &e) : NULL;
    cr_assert(m, "%s", e.text);
    struct session *s = session_new(m, &(struct session_options){.all_logits = x->prompt}, &e);
    cr_assert(s, "%s", e.text);
    *V = m->config.V;
    float *z = malloc((size_t)(x->n * *V) * sizeof *z);
    for (int64_t at = 0, rows = x->prompt; at < x->n; at += rows, rows = 1) {
        const float *piece = session_feed(s, x->ids + at, rows, FEED_GENERATED, LOGITS_ALL, &e);
        cr_assert(piece, "%s", e.text);
        memcpy(z + at * *V, piece, (size_t)(rows * *V) * sizeof *z);
    }
    session_free(s), model_free(m);
    return z;
}

static double log_sum(const float *z, int64_t n) {
    double most = -1e30, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, (double)z[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)z[i] - most);
    return most + log(sum);
}

static double worst_difference(const float *z, int64_t V, const struct expected *x) {
    double worst = 0;
    for (int32_t t = 0; t < x->n; t++) {
        const float *row = x->rows + t * (x->samples + 2), *mine = z + t * V;
        int32_t top;
        memcpy(&top, row + x->samples + 1, sizeof top);
        for (int32_t k = 0; k < x->samples; k++)
            worst = fmax(worst, fabs((double)mine[(7 * t + 5 * k) % V] - (double)row[k]));
        worst = fmax(worst, fabs(log_sum(mine, V) - (double)row[x->samples]));
        for (int64_t v = 0; v < V; v++) worst = fmax(worst, (double)mine[v] - (double)mine[top]);
    }
    return worst;
}

static void same_tensors(const char *name, const struct model_file *a, const struct model_file *b) {
    cr_assert_eq(model_file_tensor_count(a), model_file_tensor_count(b), "%s", name);
    for (size_t i = 0; i < model_file_tensor_count(a); i++) {
        const struct file_tensor *t = model_file_tensor_at(a, i), *u = model_file_tensor(b, t->name);
        cr_assert(u, "%s: %s is missing", name, t->name);
        cr_assert(t->dtype == u->dtype && t->n_dims == u->n_dims && !memcmp(t->size, u->size, sizeof t->size), "%s: %s",
                  name, t->name);
        cr_assert(t->bytes == u->bytes && !memcmp(t->data, u->data, t->bytes), "%s: %s differs", name, t->name);
    }
}

// The tensors of the written folder bear the names that transformers gave them: a reader that forgives would not see.
static void same_names(const char *name, const struct model_file *a, const struct model_file *b) {
    struct st_file s = {.n = 0}, t = {.n = 0};
    struct err e = {{0}};
    cr_assert(safetensors_read(a->parts[0].data, a->parts[0].size, &s, &e), "%s", e.text);
    cr_assert(safetensors_read(b->parts[0].data, b->parts[0].size, &t, &e), "%s", e.text);
    for (size_t i = 0; i < t.n; i++) {
        struct span x = safetensors_name(&t, &t.tensors[i]);
        cr_expect(name_index_find(&s.index, x.p, x.n, s.n) < s.n, "%s: transformers has no %.*s", name, (int)x.n, x.p);
    }
    cr_expect_eq(s.n, t.n, "%s", name);
    safetensors_free(&s), safetensors_free(&t);
}

Test(hf_families, folders_compute_what_transformers_computes) {
    pool_start(2);
    for (size_t g = 0; g < COUNT_OF(names); g++) {
        char folder[128];
        struct err e = {{0}};
        int64_t V;
        snprintf(folder, sizeof folder, "%s/%s", dir, names[g]);
        make_folder(names[g], folder, NULL);
        struct model_file *f = model_file_open(folder, &e);
        cr_expect(f, "%s: %s", names[g], e.text);
        if (!f) continue;
        struct expected x = open_expected(names[g]);
        float *z = logits_of(f, &x, &V);
        double worst = worst_difference(z, V, &x);
        cr_expect(worst < tolerance, "%s: off by %g", names[g], worst);
        if (getenv("LEHR_SHOW")) printf("%-14s %.3g\n", names[g], worst);
        free(z), text_free(&x.bytes), model_file_close(f);
    }
}

Test(hf_families, gguf_and_folders_written_from_a_folder_change_no_bit) {
    pool_start(2);
    for (size_t g = 0; g < COUNT_OF(names); g++) {
        char folder[128], gguf[128], again[128];
        struct err e = {{0}};
        int64_t V;
        snprintf(folder, sizeof folder, "%s/%s", dir, names[g]);
        snprintf(gguf, sizeof gguf, "%s/%s.gguf", dir, names[g]);
        snprintf(again, sizeof again, "%s/%s-again", dir, names[g]);
        make_folder(names[g], folder, NULL);
        struct model_file *f = open_file(folder);
        struct expected x = open_expected(names[g]);
        cr_assert(model_export_gguf(f, gguf, &(struct export_options){0}, NULL, &e), "%s", e.text);
        struct model_file *h = open_file(gguf);
        bool written = hf_write(h, again, DTYPE_F32, NULL, NULL, &e);
        cr_expect(written, "%s: %s", names[g], e.text);
        float *first = logits_of(f, &x, &V), *second = logits_of(h, &x, &V);
        size_t bytes = (size_t)(x.n * V) * sizeof *first;
        cr_expect(!memcmp(first, second, bytes), "%s: the GGUF computes something else", names[g]);
        if (written) {
            struct model_file *i = open_file(again);
            same_tensors(names[g], f, i);
            same_names(names[g], f, i);
            float *third = logits_of(i, &x, &V);
            cr_expect(!memcmp(first, third, bytes), "%s: the folder computes something else", names[g]);
            free(third), model_file_close(i);
        }
        free(first), free(second), text_free(&x.bytes), model_file_close(f), model_file_close(h);
    }
}

Test(hf_families, the_text_part_of_a_model_with_eyes_is_the_model) {
    static const char *const insides[] = {"language_model.model.", "model.language_model."};
    pool_start(1);
    for (size_t i = 0; i < COUNT_OF(insides); i++) {
        char folder[128];
        int64_t V;
        snprintf(folder, sizeof folder, "%s/eyes%zu", dir, i);
        make_folder("gemma3", folder, insides[i]);
        struct model_file *f = open_file(folder);
        struct expected x = open_expected("gemma3");
        float *z = logits_of(f, &x, &V);
        cr_expect(worst_difference(z, V, &x) < tolerance, "%s", insides[i]);
        cr_expect_str_eq(model_file_kind(f), "safetensors, text part only");
        free(z), text_free(&x.bytes), model_file_close(f);
    }
}
