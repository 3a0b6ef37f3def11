// test_families.c: every family computes what the engine that people trust computes, and no bit depends on how a text is
// fed; what a file has that we do not compute is refused by name.
//
// Goldens: tests/make_family_goldens.py. Tiny models with all switches of their family on, logits of llama.cpp.
#include "model/internal.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct backend *cpu(const char *level) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(level, &e);
    cr_assert(b || level, "%s", e.text);
    return b;
}

// The largest difference allowed, with logits of size 1 to 6. The engine's GELU reads a table of f16, so where GELU
// is on, a difference of 2^-11 of each activation remains.
static const struct golden {
    const char *name, *arch;
    double tolerance;
} goldens[] = {
    {"llama_divisors", "llama", 1e-4}, {"llama_biases", "llama", 1e-4}, {"qwen2", "qwen2", 1e-4},
    {"qwen3", "qwen3", 1e-4},          {"gemma3", "gemma3", 1e-3},      {"gpt2", "gpt2", 1e-3},
    {"phi3", "phi3", 1e-4},            {"olmo2", "olmo2", 1e-4},        {"gemma", "gemma", 1e-3},
    {"gemma2", "gemma2", 1e-3},        {"minicpm", "minicpm", 1e-4},    {"granitemoe", "granitemoe", 1e-4},
    {"mixtral", "llama", 1e-4},        {"olmoe", "olmoe", 1e-4},        {"qwen3moe", "qwen3moe", 1e-4},
};

struct expected {
    struct text bytes;
    int32_t ids_count, rows, V;
    const int32_t *ids, *row;
    const float *logits;
};

static struct model_file *open_golden(const char *name) {
    char path[96];
    struct err e = {{0}};
    snprintf(path, sizeof path, "tests/golden/family_%s.gguf", name);
    struct model_file *f = model_file_open(path, &e);
    cr_assert(f, "%s", e.text);
    return f;
}

static struct expected open_expected(const char *name) {
    char path[96];
    struct err e = {{0}};
    struct expected x = {{0}, 0, 0, 0, NULL, NULL, NULL};
    snprintf(path, sizeof path, "tests/golden/family_%s.logits", name);
    cr_assert(file_read_all(path, 1 << 20, &x.bytes, &e), "%s", e.text);
    const int32_t *head = (const int32_t *)(const void *)x.bytes.data;
    x.ids_count = head[0], x.rows = head[1], x.V = head[2];
    x.ids = head + 3, x.row = x.ids + x.ids_count;
    x.logits = (const float *)(const void *)(x.row + x.rows);
    cr_assert(x.bytes.len == 4 * (size_t)(3 + x.ids_count + x.rows + x.rows * x.V));
    return x;
}

static struct model *load(const struct model_file *f, const struct backend *b) {
    struct err e = {{0}};
    struct model *m = model_load(f, b, &e);
    cr_assert(m, "%s", e.text);
    return m;
}

// Feeds ids in pieces of `piece` rows (the first one `first`), all logits into `out` [n,V].
static void feed_all(const struct model *m, const int32_t *ids, int64_t n, int64_t first, int64_t piece, float *out) {
    struct err e = {{0}};
    struct session *s = session_new(m, &(struct session_options){.all_logits = n, .chunk = 16}, &e);
    cr_assert(s, "%s", e.text);
    for (int64_t at = 0; at < n;) {
        int64_t rows = at == 0 ? first : piece;
        if (rows > n - at) rows = n - at;
        const float *z = session_feed(s, ids + at, rows, LOGITS_ALL, &e);
        cr_assert(z, "%s", e.text);
        memcpy(out + at * m->config.V, z, (size_t)(rows * m->config.V) * sizeof *z);
        at += rows;
    }
    session_free(s);
}

Test(families, logits_are_those_of_llama_cpp) {
    pool_start(2);
    static const char *const levels[] = {"plain", "avx2", NULL};
    for (size_t g = 0; g < COUNT_OF(goldens); g++) {
        struct model_file *f = open_golden(goldens[g].name);
        struct expected x = open_expected(goldens[g].name);
        for (size_t l = 0; l < COUNT_OF(levels); l++) {
            if (!cpu(levels[l])) continue;
            struct model *m = load(f, cpu(levels[l]));
            cr_assert_str_eq(m->config.family->name, goldens[g].arch);
            float *z = malloc((size_t)(x.ids_count * x.V) * sizeof *z);
            feed_all(m, x.ids, x.ids_count, 40, 1, z);
            double worst = 0;
            for (int32_t i = 0; i < x.rows; i++)
                for (int32_t v = 0; v < x.V; v++)
                    worst = fmax(worst, fabs((double)z[x.row[i] * x.V + v] - (double)x.logits[i * x.V + v]));
            cr_expect(worst < goldens[g].tolerance, "%s %s: off by %g", goldens[g].name, levels[l] ? levels[l] : "best",
                      worst);
            free(z), model_free(m);
        }
        text_free(&x.bytes), model_file_close(f);
    }
}
