// test_variants.c: further families and kinds of rope compute what transformers computes, read from its own folders.
//
// Goldens: tests/make_variant_goldens.py. Each is a config.json and a table of tensors as transformers writes them, with
// logits of a 40-token prompt and of ten decode steps; the weights are a formula, the same here and there. What is
// tested is the whole way: config.json, names and layouts of tensors, the forward pass, and the same again from the
// GGUF that is written of it.
#include "model/internal.h"
#include "tests/hand.h"
#include "tests/variant_kit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Logits of size 1 to 10 from two f32 engines whose sums, exponentials and angles round differently.
static const double tolerance = 5e-5;
struct expected {
    struct text bytes;
    int32_t ids_count, rows, V;
    const int32_t *ids, *row;
    const float *logits;
};

static char folder[64];

static void path_in(char path[160], const char *name) { snprintf(path, 160, "%s/%s", folder, name); }

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/lehr-test-variants-%ld", (long)getpid());
    cr_assert(mkdir(folder, 0700) == 0);
}
static void remove_folder(void) {
    static const char *const names[] = {"config.json", "model.safetensors", "again.gguf", "config.gguf", "again/config.json",
                                        "again/model.safetensors", "again/generation_config.json"};
    char path[160];
    for (size_t i = 0; i < COUNT_OF(names); i++) path_in(path, names[i]), unlink(path);
    path_in(path, "again");
    rmdir(path);
    rmdir(folder);
}
TestSuite(variants, .init = make_folder, .fini = remove_folder);

static struct expected open_expected(const char *name) {
    struct expected x = {.bytes = variant_golden(name, "logits")};
    const int32_t *head = (const int32_t *)(const void *)x.bytes.data;
    x.ids_count = head[0], x.rows = head[1], x.V = head[2];
    x.ids = head + 3, x.row = x.ids + x.ids_count;
    x.logits = (const float *)(const void *)(x.row + x.rows);
    cr_assert(x.bytes.len == 4 * (size_t)(3 + x.ids_count + x.rows + x.rows * x.V));
    return x;
}

static struct model *load(const struct model_file *f, const char *level, const char *name) {
    struct err e = {{0}};
    const struct backend *b = backend_cpu(level, &e);
    struct model *m = b ? model_load(f, b, &e) : NULL;
    cr_assert(m, "%s: %s", name, e.text);
    return m;
}

// All logits [ids,V], fed in pieces of `piece` rows, the first one `first`. Free with free.
static float *feed_all(struct model *m, const struct expected *x, int64_t ctx, int64_t first, int64_t piece) {
    struct err e = {{0}};
    int64_t n = x->ids_count;
    float *out = malloc((size_t)(n * x->V) * sizeof *out);
    struct session *s = session_new(m, &(struct session_options){.ctx = ctx, .all_logits = n, .chunk = 16}, &e);
    cr_assert(s, "%s", e.text);
    for (int64_t at = 0; at < n;) {
        int64_t rows = at == 0 ? first : piece;
        if (rows > n - at) rows = n - at;
        const float *z = session_feed(s, x->ids + at, rows, FEED_GENERATED, LOGITS_ALL, &e);
        cr_assert(z, "%s", e.text);
        memcpy(out + at * x->V, z, (size_t)(rows * x->V) * sizeof *z);
        at += rows;
    }
    session_free(s);
    return out;
}

static double worst_of(const struct expected *x, const float *z) {
    double worst = 0;
    for (int32_t i = 0; i < x->rows; i++)
        for (int32_t v = 0; v < x->V; v++)
            worst = fmax(worst, fabs((double)z[x->row[i] * x->V + v] - (double)x->logits[i * x->V + v]));
    return worst;
}

Test(variants, logits_are_those_of_transformers) {
    pool_start(2);
    static const char *const levels[] = {"plain", "avx2", NULL};
    for (size_t g = 0; g < (size_t)variant_count; g++) {
        struct model_file *f = variant_open(folder, variants[g].name);
        struct expected x = open_expected(variants[g].name);
        for (size_t l = 0; l < COUNT_OF(levels); l++) {
            struct err e = {{0}};
            if (!backend_cpu(levels[l], &e)) continue;
            struct model *m = load(f, levels[l], variants[g].name);
            float *z = feed_all(m, &x, variants[g].ctx, 40, 1);
            double worst = worst_of(&x, z);
            cr_expect(worst < tolerance, "%s %s: off by %g", variants[g].name, levels[l] ? levels[l] : "best", worst);
            free(z), model_free(m);
        }
        text_free(&x.bytes), model_file_close(f);
    }
}

// The GGUF written as a folder again; norms that count from one may lose a bit where they are near zero.
static void same_from_a_folder(const struct model_file *gguf, size_t g, const struct expected *x, const float *expected) {
    struct err e = {{0}};
    char path[160];
    path_in(path, "again");
    bool written = hf_write(gguf, path, DTYPE_F32, NULL, NULL, &e);
    struct model_file *f = written ? model_file_open(path, &e) : NULL;
    cr_expect(f, "%s: %s", variants[g].name, e.text);
    if (!f) return;
    struct model *m = load(f, NULL, variants[g].name);
    float *z = feed_all(m, x, variants[g].ctx, 40, 1);
    double worst = 0;
    for (int32_t i = 0; i < x->ids_count * x->V; i++) worst = fmax(worst, fabs((double)z[i] - (double)expected[i]));
    cr_expect(worst < tolerance, "%s: the folder is off by %g", variants[g].name, worst);
    free(z), model_free(m), model_file_close(f);
}

// The same tensors under the keys that the config itself writes.
static void write_by_config(const struct model_config *c, const struct model_file *f, const char *path) {
    struct err e = {{0}};
    struct gguf_out *o = gguf_out_open(path, &e);
    cr_assert(o, "%s", e.text);
    config_write(c, o);
    hand_copy_tensors(o, f);
    cr_assert(gguf_out_commit(o, &e), "%s", e.text);
}

Test(variants, cuts_threads_and_what_is_written_change_no_bit) {
    static const int64_t cuts[][2] = {{1, 1}, {50, 1}, {3, 7}};
    for (size_t g = 0; g < (size_t)variant_count; g++) {
        struct err e = {{0}};
        struct model_file *f = variant_open(folder, variants[g].name);
        struct expected x = open_expected(variants[g].name);
        size_t bytes = (size_t)(x.ids_count * x.V) * sizeof(float);
        pool_start(1);
        struct model *m = load(f, NULL, variants[g].name);
        float *expected = feed_all(m, &x, variants[g].ctx, 40, 1);
        for (size_t k = 0; k < COUNT_OF(cuts); k++) {
            pool_start(1 + (int)k);
            float *z = feed_all(m, &x, variants[g].ctx, cuts[k][0], cuts[k][1]);
            cr_expect_arr_eq(z, expected, bytes, "%s: cut %zu differs", variants[g].name, k);
            free(z);
        }
        for (int by_config = 0; by_config < 2; by_config++) {
            char path[160];
            path_in(path, by_config ? "config.gguf" : "again.gguf");
            if (by_config) write_by_config(&m->config, f, path);
            else cr_assert(model_export_gguf(f, path, &(struct export_options){0}, NULL, &e), "%s", e.text);
            struct model_file *again = model_file_open(path, &e);
            cr_assert(again, "%s", e.text);
            struct model *n = load(again, NULL, variants[g].name);
            float *z = feed_all(n, &x, variants[g].ctx, 40, 1);
            cr_expect_arr_eq(z, expected, bytes, "%s: %s differs", variants[g].name, path);
            if (!by_config) same_from_a_folder(again, g, &x, expected);
            free(z), model_free(n), model_file_close(again);
        }
        free(expected), model_free(m), model_file_close(f), text_free(&x.bytes);
    }
}

Test(variants, nothing_is_allocated_after_the_first_feed) {
    pool_start(2);
    for (size_t g = 0; g < (size_t)variant_count; g++) {
        struct err e = {{0}};
        struct model_file *f = variant_open(folder, variants[g].name);
        struct expected x = open_expected(variants[g].name);
        struct model *m = load(f, NULL, variants[g].name);
        struct session *s = session_new(m, &(struct session_options){.ctx = variants[g].ctx}, &e);
        cr_assert(s && session_feed(s, x.ids, 10, FEED_GENERATED, LOGITS_LAST, &e), "%s", e.text);
        mem_freeze(true);
        bool fed = session_feed(s, x.ids + 10, 1, FEED_GENERATED, LOGITS_LAST, &e) && session_feed(s, x.ids + 11, 5, FEED_GENERATED, LOGITS_LAST, &e);
        mem_freeze(false);
        cr_assert(fed, "%s: %s", variants[g].name, e.text);
        session_free(s), model_free(m), text_free(&x.bytes), model_file_close(f);
    }
}
