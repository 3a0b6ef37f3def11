// test_quantize.c: files quantized by name are what people know by that name, importance matrices are those of the engine
// that invented them, and what is told about a quantized file is true.
//
// Goldens: tests/make_mix_goldens.py (types of tensors), tests/make_imatrix_goldens.py (matrices, weighted errors).
#include "gen/gen.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];
static char *in_dir(const char *name) {
    static char path[4][160];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}
static void make_dir(void) {
    snprintf(dir, sizeof dir, "/tmp/lehr-quantize-XXXXXX");
    cr_assert(mkdtemp(dir));
}
static void remove_dir(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    cr_expect(system(command) == 0);
}
TestSuite(quantize, .init = make_dir, .fini = remove_dir);

static const struct backend *cpu(void) {
    struct err err;
    const struct backend *b = backend_cpu(NULL, &err);
    cr_assert(b, "%s", err.text);
    return b;
}

static struct model_file *open_file(const char *path) {
    struct err err;
    struct model_file *f = model_file_open(path, &err);
    cr_assert(f, "%s", err.text);
    return f;
}

// --- mixes ---------------------------------------------------------------------------------------------------------

enum { TENSORS_MOST = 400, MIXES_MOST = 32 };

struct golden { // one model of tests/golden/mixes.txt
    char name[32], arch[32], types[2][TENSORS_MOST][MIXES_MOST];
    int L, H, G, E;
    struct file_tensor tensor[TENSORS_MOST];
    const struct file_tensor *tensors[TENSORS_MOST];
    size_t n;
};

static void check_golden(const struct golden *g, const struct mix *const *mix, int n_mixes, const enum dtype letters[128]) {
    struct model_config c = {.family = family_find(g->arch), .L = g->L, .H = g->H, .G = g->G, .E = g->E};
    enum dtype to[TENSORS_MOST];
    cr_assert(c.family, "%s", g->arch);
    for (int m = 0; m < n_mixes; m++)
        for (int weighed = 0; weighed < 2; weighed++) {
            mix_choose(mix[m], &c, weighed, g->tensors, g->n, to);
            for (size_t i = 0; i < g->n; i++) {
                char letter = g->types[weighed][i][m];
                if (letter == '.') cr_assert(mix[m]->needs_importance);
                else
                    cr_assert_eq(to[i], letters[(unsigned char)letter], "%s, %s%s: %s is %s, expected %s", g->name, mix[m]->name,
                                 weighed ? " weighed" : "", g->tensors[i]->name, dtype_row(to[i])->name,
                                 dtype_row(letters[(unsigned char)letter])->name);
            }
        }
}

static void add_tensor(struct golden *g, const char *line) {
    char sizes[32], *at = sizes;
    struct file_tensor *t = &g->tensor[g->n];
    cr_assert(g->n < TENSORS_MOST && sscanf(line, "%64s %31s %31s %31s", t->name, sizes, g->types[0][g->n], g->types[1][g->n]) == 4);
    int64_t inner[4] = {0};
    t->n_dims = 0;
    for (; *at; at += *at == 'x') inner[t->n_dims++] = strtoll(at, &at, 10);
    for (int d = 0; d < t->n_dims; d++) t->size[d] = inner[t->n_dims - 1 - d];
    t->dtype = DTYPE_F32;
    g->tensors[g->n++] = t;
}

Test(quantize, mixes_give_every_tensor_the_type_that_the_known_quantizer_gives) {
    static struct golden g;
    struct text text = {0};
    struct err err;
    const struct mix *mix[MIXES_MOST] = {0};
    enum dtype letters[128] = {0};
    int n_mixes = 0, models = 0;
    cr_assert(file_read_all("tests/golden/mixes.txt", 1 << 20, &text, &err), "%s", err.text);
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
        int used = 0;
        char name[16];
        if (!strncmp(line, "mixes ", 6)) {
            int file_type;
            for (line += 6; sscanf(line, "%15[^=]=%d %n", name, &file_type, &used) == 2; line += used) {
                mix[n_mixes] = mix_find(name);
                cr_assert(mix[n_mixes] && mix[n_mixes]->file_type == file_type, "%s", name);
                n_mixes++;
            }
        } else if (!strncmp(line, "letters ", 8)) {
            char letter;
            for (line += 8; sscanf(line, "%c=%15s %n", &letter, name, &used) == 2; line += used)
                letters[(unsigned char)letter] = dtype_from_name(name);
        } else if (!strncmp(line, "model ", 6)) {
            if (g.n) check_golden(&g, mix, n_mixes, letters);
            memset(&g, 0, sizeof g);
            cr_assert(sscanf(line, "model %31s %31s %d %d %d %d", g.name, g.arch, &g.L, &g.H, &g.G, &g.E) == 6);
            models++;
        } else if (*line != '#') add_tensor(&g, line);
    }
    check_golden(&g, mix, n_mixes, letters);
    cr_assert(models == 7 && n_mixes == mix_count, "%d models, %d mixes", models, n_mixes);
    text_free(&text);
}

Test(quantize, order_of_tensors_in_the_file_does_not_matter) {
    struct model_config c = {.family = family_find("llama"), .L = 16, .H = 4, .G = 4};
    static struct file_tensor t[16];
    const struct file_tensor *list[16];
    enum dtype to[16];
    for (int l = 0; l < 16; l++) {
        int at = (l * 7) % 16;
        t[at] = (struct file_tensor){.dtype = DTYPE_F32, .n_dims = 2, .size = {2, 256}};
        snprintf(t[at].name, sizeof t[at].name, "blk.%d.attn_v.weight", l);
        list[at] = &t[at];
    }
    mix_choose(mix_find("q4_k_s"), &c, false, list, 16, to);
    for (int l = 0; l < 16; l++) cr_expect_eq(to[(l * 7) % 16], l < 4 ? DTYPE_Q5_K : DTYPE_Q4_K, "layer %d", l);
    cr_expect(mix_find("Q4_K") == mix_find("q4_k_m") && !mix_find("Q4"));
}

// --- weighted errors -----------------------------------------------------------------------------------------------

static uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

enum { COLS = 1024 };

static float *normal_weights(int64_t n) {
    float *x = mem_array((size_t)n, sizeof *x, "weights");
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = mix64((uint64_t)i);
        int total = (int)(r & 65535) + (int)(r >> 16 & 65535) + (int)(r >> 32 & 65535) + (int)(r >> 48) - 131072;
        x[i] = (float)total * 0x1p-15f;
    }
    return x;
}

// The tensors that the golden names, end to end.
static float *story_weights(int64_t *n) {
    static const char *const names[] = {"blk.0.ffn_down.weight", "blk.1.attn_v.weight", "blk.2.ffn_up.weight", "blk.3.attn_output.weight"};
    struct model_file *f = open_file("data/stories-1m.gguf");
    float *x = NULL;
    size_t cap = 0;
    *n = 0;
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        for (size_t k = 0; k < COUNT_OF(names); k++) {
            if (strcmp(t->name, names[k])) continue;
            int64_t count = t->size[0] * t->size[1];
            mem_grow((void **)&x, &cap, (size_t)(*n + count), sizeof *x, "weights");
            dtype_row(t->dtype)->to_f32(t->data, x + *n, count);
            *n += count;
        }
    }
    *n = *n / COLS * COLS;
    model_file_close(f);
    return x;
}

static double weighted_error(enum dtype d, const float *x, int64_t n, const float *weight) {
    static uint8_t raw[COLS * 4];
    static float y[COLS];
    double error = 0, all = 0;
    for (int64_t row = 0; row < n / COLS; row++, x += COLS) {
        dtype_quantize(d, x, raw, COLS, weight);
        dtype_row(d)->to_f32(raw, y, COLS);
        for (int j = 0; j < COLS; j++) {
            double off = (double)x[j] - (double)y[j];
            error += (double)weight[j] * off * off;
            all += (double)weight[j] * (double)x[j] * (double)x[j];
        }
    }
    return error / all;
}

Test(quantize, weighted_errors_are_no_larger_than_the_known_quantizer_s) {
    int64_t n[2] = {64 * COLS, 0};
    float *x[2] = {normal_weights(n[0]), story_weights(&n[1])}, weight[COLS];
    struct text text = {0};
    struct err err;
    int lines = 0;
    for (int j = 0; j < COLS; j++) {
        double k = (double)(mix64((uint64_t)j + (1ull << 40)) & 65535) + 1;
        weight[j] = (float)(k * k * 0x1p-32 * (j % 64 == 5 ? 100 : 1));
    }
    cr_assert(n[1] > 0 && file_read_all("tests/golden/weighted.txt", 1 << 16, &text, &err));
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
        char data[16], name[16];
        double golden;
        if (sscanf(line, "%15s %15s %lf", data, name, &golden) != 3) continue;
        bool stories = !strcmp(data, "stories");
        double ours = weighted_error(dtype_from_name(name), x[stories], n[stories], weight);
        cr_expect(ours <= golden, "%s %s: %.4e, theirs %.4e", data, name, ours, golden);
        lines++;
    }
    cr_assert(lines == 22);
    mem_free(x[0]);
    mem_free(x[1]);
    text_free(&text);
}

// --- importance matrices -------------------------------------------------------------------------------------------

enum { CHUNK = 24, CHUNKS = 2 };

static struct imatrix *collect_family(const char *name, int64_t rows_of_a_pass) {
    char path[96];
    struct text bytes = {0};
    struct err err;
    snprintf(path, sizeof path, "tests/golden/family_%s.gguf", name);
    struct model_file *f = open_file(path);
    snprintf(path, sizeof path, "tests/golden/family_%s.logits", name);
    cr_assert(file_read_all(path, 1 << 20, &bytes, &err));
    struct model *m = model_load(f, cpu(), &err);
    cr_assert(m, "%s", err.text);
    struct session *s = session_new(m, &(struct session_options){.exact = true, .ctx = CHUNK, .chunk = rows_of_a_pass}, &err);
    struct imatrix_text text = {.ids = (const int32_t *)(const void *)bytes.data + 3, .n = CHUNK * CHUNKS + 2, .chunk = CHUNK, .bos = -1};
    struct imatrix *got = imatrix_collect(m, s, &text, &err);
    cr_assert(got, "%s", err.text);
    session_free(s);
    model_free(m);
    model_file_close(f);
    text_free(&bytes);
    return got;
}

// Sums of f32 activations of two engines, whose products round differently.
static void check_same(const struct imatrix *x, const struct imatrix *y, double tolerance, const char *what) {
    cr_assert_eq(x->n, y->n, "%s: %zu entries, %zu", what, x->n, y->n);
    for (size_t i = 0; i < x->n; i++) {
        const struct imatrix_entry *a = &x->entries[i], *b = imatrix_find(y, a->name);
        cr_assert(b && a->values == b->values, "%s: %s", what, a->name);
        for (size_t j = 0; j < a->values; j++)
            cr_assert_float_eq((double)a->mean[j], (double)b->mean[j], tolerance * (double)b->mean[j] + 1e-9, "%s: %s[%zu] %g, %g", what,
                               a->name, j, (double)a->mean[j], (double)b->mean[j]);
    }
}

Test(quantize, importance_of_a_text_is_that_of_the_known_engine) {
    static const char *const names[] = {"mixtral", "phi3", "qwen3"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[96];
        struct err err;
        snprintf(path, sizeof path, "tests/golden/imatrix_%s.gguf", names[i]);
        struct imatrix *golden = imatrix_open(path, &err), *ours = collect_family(names[i], 0);
        cr_assert(golden, "%s", err.text);
        check_same(ours, golden, 2e-5, names[i]);
        cr_assert(golden->chunks == CHUNKS && golden->chunk_tokens == CHUNK && !strcmp(golden->dataset, "ids of the family"));
        for (size_t k = 0; k < ours->n; k++) // each row counted once, at its experts
            cr_assert_arr_eq(ours->entries[k].count, imatrix_find(golden, ours->entries[k].name)->count, ours->entries[k].counts * sizeof(double));
        struct imatrix *cut = collect_family(names[i], 7);
        check_same(ours, cut, 0, names[i]);
        imatrix_free(cut);
        imatrix_free(ours);
        imatrix_free(golden);
    }
}

Test(quantize, importance_survives_its_files) {
    struct err err;
    struct imatrix *ours = collect_family("mixtral", 0);
    cr_assert(imatrix_write(ours, in_dir("m.gguf"), &err), "%s", err.text);
    struct imatrix *back = imatrix_open(in_dir("m.gguf"), &err), *legacy = imatrix_open("tests/golden/imatrix_mixtral.dat", &err);
    cr_assert(back && legacy, "%s", err.text);
    check_same(back, ours, 1e-6, "read back");
    for (size_t i = 0; i < legacy->n; i++) { // there, experts without rows have ones, and all counts are one
        const struct imatrix_entry *e = &legacy->entries[i], *o = imatrix_find(ours, e->name);
        for (size_t j = 0; j < e->values; j++)
            cr_assert_float_eq((double)e->mean[j], o->count[j / (o->values / o->counts)] > 0 ? (double)o->mean[j] : 1, 1e-4 * fabs((double)e->mean[j]));
    }
    // Names, sizes and order of the other engine's file.
    struct model_file *x = open_file(in_dir("m.gguf")), *y = open_file("tests/golden/imatrix_mixtral.gguf");
    cr_assert_eq(model_file_tensor_count(x), model_file_tensor_count(y));
    for (size_t i = 0; i < model_file_tensor_count(y); i++) {
        const struct file_tensor *t = model_file_tensor_at(y, i), *u = model_file_tensor(x, t->name);
        cr_assert(u && u->bytes == t->bytes && u->dtype == t->dtype, "%s", t->name);
    }
    model_file_close(x);
    model_file_close(y);
    imatrix_free(ours);
    imatrix_free(back);
    imatrix_free(legacy);
}

static void refused(const char *path, const char *why) {
    struct err err = {""};
    struct imatrix *m = imatrix_open(path, &err);
    cr_assert(!m, "%s was taken", path);
    cr_expect(strstr(err.text, why), "%s: not \"%s\"", err.text, why);
}

static void put(const char *name, const void *bytes, size_t n) {
    struct err err;
    struct file_out *f = file_out_open(in_dir(name), &err);
    file_out_write(f, bytes, n);
    cr_assert(file_out_commit(f, &err));
}

Test(quantize, broken_importance_files_are_refused) {
    struct text dat = {0};
    struct err err;
    enum imatrix_kind kind;
    cr_assert(file_read_all("tests/golden/imatrix_mixtral.dat", 1 << 20, &dat, &err));
    for (size_t cut = 4; cut + 40 < dat.len; cut += cut < 200 ? 1 : 37) { // behind the last entry a cut is allowed
        put("cut.dat", dat.data, cut);
        refused(in_dir("cut.dat"), "cut off");
    }
    dat.data[4 + 3] = 0x7f; // a name of 2 GB
    put("name.dat", dat.data, dat.len);
    refused(in_dir("name.dat"), "a name of 2130");
    refused("data/stories-1m.gguf", "no importance matrix");
    refused("README.md", "no importance matrix");
    cr_assert(imatrix_recognise("README.md", &kind, &err) && kind == IMATRIX_TEXT);
    put("none", "ab\0cdefgh", 9);
    cr_assert(imatrix_recognise(in_dir("none"), &kind, &err) && kind == IMATRIX_NONE);
    text_free(&dat);
}

// A GGUF matrix of one entry: what to leave out or get wrong.
static const char *entry_name = "blk.0.attn_output.weight";
static void put_matrix(const char *name, bool keys, bool counts, int64_t n_sums, int64_t n_counts, float value) {
    struct err err;
    float x[64];
    char sums_name[65], counts_name[65];
    snprintf(sums_name, sizeof sums_name, "%s.in_sum2", entry_name);
    snprintf(counts_name, sizeof counts_name, "%s.counts", entry_name);
    for (int i = 0; i < 64; i++) x[i] = value;
    struct gguf_out *o = gguf_out_open(in_dir(name), &err);
    gguf_out_text(o, "general.type", "imatrix", 7);
    gguf_out_texts(o, "imatrix.datasets", &(struct span){"t", 1}, 1);
    if (keys) gguf_out_u32(o, "imatrix.chunk_count", 1);
    gguf_out_u32(o, "imatrix.chunk_size", 24);
    gguf_out_tensor(o, sums_name, DTYPE_F32, 1, (int64_t[4]){n_sums});
    if (counts) gguf_out_tensor(o, counts_name, DTYPE_F32, 1, (int64_t[4]){n_counts});
    gguf_out_data(o, x, (size_t)n_sums * 4);
    for (int i = 0; i < 64; i++) x[i] = 1;
    if (counts) gguf_out_data(o, x, (size_t)n_counts * 4);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
}

Test(quantize, importance_files_with_holes_are_refused_by_name) {
    put_matrix("keys.gguf", false, true, 16, 1, 1);
    refused(in_dir("keys.gguf"), "imatrix.chunk_count");
    put_matrix("counts.gguf", true, false, 16, 1, 1);
    refused(in_dir("counts.gguf"), "has no blk.0.attn_output.weight.counts");
    put_matrix("sizes.gguf", true, true, 16, 5, 1);
    refused(in_dir("sizes.gguf"), "no multiple of its 5 counts");
    put_matrix("nan.gguf", true, true, 16, 1, NAN);
    refused(in_dir("nan.gguf"), "expected a number from 0 on");
    put_matrix("less.gguf", true, true, 16, 1, -1);
    refused(in_dir("less.gguf"), "expected a number from 0 on");
}

// --- exporting with a matrix ---------------------------------------------------------------------------------------

static bool export_with(const char *matrix, const char *mix, struct text *notes, struct err *err) {
    struct model_file *f = open_file("tests/golden/family_mixtral.gguf");
    struct imatrix *m = imatrix_open(matrix, err);
    cr_assert(m, "%s", err->text);
    struct export_options o = {.mix = mix_find(mix), .importance = m, .importance_path = matrix};
    bool good = model_export_gguf(f, in_dir("q.gguf"), &o, notes, err);
    imatrix_free(m);
    model_file_close(f);
    return good;
}

Test(quantize, a_matrix_of_another_model_is_refused) {
    struct err err = {""};
    struct text notes = {0};
    put_matrix("other.gguf", true, true, 24, 1, 1); // attn_output has 32 columns
    cr_assert(!export_with(in_dir("other.gguf"), "q4_0", NULL, &err));
    cr_expect(strstr(err.text, "24 values for blk.0.attn_output.weight, which has 32 columns"), "%s", err.text);
    cr_expect(!file_exists(in_dir("q.gguf")));
    put_matrix("short.gguf", true, true, 32, 1, 1); // one matrix of two: told, the other one is quantized without
    cr_assert(export_with(in_dir("short.gguf"), "q4_0", &notes, &err), "%s", err.text);
    cr_expect(strstr(notes.data, "lacks 1 matrices, blk.1.attn_output.weight"), "%s", notes.data);
    text_clear(&notes);
    cr_assert(export_with("tests/golden/imatrix_mixtral.gguf", "q4_0", &notes, &err), "%s", err.text);
    cr_expect(!notes.len || !strstr(notes.data, "lacks"), "%s", notes.data);
    text_clear(&notes);
    entry_name = "blk.9.nobody.weight";
    put_matrix("stranger.gguf", true, true, 32, 1, 1);
    cr_assert(!export_with(in_dir("stranger.gguf"), "q4_0", &notes, &err));
    cr_expect(strstr(err.text, "knows none of the 2 matrices"), "%s", err.text);
    cr_expect(strstr(notes.data, "1 entries for tensors that this model lacks, blk.9.nobody.weight"), "%s", notes.data);
    text_free(&notes);
}

// --- comparing -----------------------------------------------------------------------------------------------------

static double plain_kl(const float *x, const float *y, int64_t V) {
    double a = logits_log_sum_exp(x, V), b = logits_log_sum_exp(y, V), kl = 0;
    for (int64_t i = 0; i < V; i++) kl += exp((double)x[i] - a) * ((double)x[i] - a - (double)y[i] + b);
    return kl;
}

Test(quantize, divergence_is_what_its_definition_says) {
    enum { N = 50, CTX = 25 };
    struct err err;
    struct text bytes = {0};
    struct model_file *f[2] = {open_file("tests/golden/family_llama_biases.gguf"), open_file("tests/golden/family_llama_divisors.gguf")};
    struct model *m[2];
    struct session *s[2];
    int64_t V = 0;
    cr_assert(file_read_all("tests/golden/family_llama_biases.logits", 1 << 20, &bytes, &err));
    const int32_t *ids = (const int32_t *)(const void *)bytes.data + 3;
    for (int i = 0; i < 2; i++) {
        cr_assert((m[i] = model_load(f[i], cpu(), &err)) && (s[i] = session_new(m[i], &(struct session_options){.exact = true, .ctx = CTX, .all_logits = PERPLEXITY_ROWS}, &err)), "%s", err.text);
        V = m[i]->config.V;
    }
    struct divergence d;
    struct scoring scoring = {.session = s[0], .ids = ids, .n = N, .ctx = CTX};
    cr_assert(divergence_run(&scoring, s[1], &d, &err), "%s", err.text);
    double kl = 0, most = 0, nll[2] = {0};
    int64_t tokens = 0, same = 0;
    for (int chunk = 0; chunk < N / CTX; chunk++) {
        for (int i = 0; i < 2; i++) session_rewind(s[i], 0);
        for (int t = 0; t < CTX - 1; t++) {
            const float *z[2];
            for (int i = 0; i < 2; i++) z[i] = session_feed(s[i], &ids[chunk * CTX + t], 1, FEED_GENERATED, LOGITS_LAST, &err);
            if (t + 1 < CTX / 2 + 1) continue;
            double one = plain_kl(z[1], z[0], V);
            int64_t top[2] = {0};
            for (int i = 0; i < 2; i++) {
                nll[i] += logits_log_sum_exp(z[i], V) - (double)z[i][ids[chunk * CTX + t + 1]];
                for (int64_t v = 0; v < V; v++) top[i] = z[i][v] > z[i][top[i]] ? v : top[i];
            }
            kl += one, most = fmax(most, one), same += top[0] == top[1], tokens++;
        }
    }
    cr_expect(d.model.tokens == tokens && d.same_top == same && !d.identical && tokens == 2 * (CTX - CTX / 2 - 1));
    cr_expect_float_eq(d.kl, kl, 1e-9);
    cr_expect_float_eq(d.most, most, 1e-9);
    cr_expect_float_eq(d.model.nll, nll[0], 1e-9);
    cr_expect_float_eq(d.reference.nll, nll[1], 1e-9);
    cr_expect_float_eq(divergence_ratio(&d, NULL), exp((nll[0] - nll[1]) / (double)tokens), 1e-12);
    cr_expect(d.median <= d.p99 && d.p99 <= d.p999 && d.p999 <= d.most && d.median > 0);
    scoring.session = s[1];
    session_rewind(s[0], 0);
    struct session *twin = session_new(m[1], &(struct session_options){.exact = true, .ctx = CTX, .all_logits = PERPLEXITY_ROWS}, &err);
    cr_assert(divergence_run(&scoring, twin, &d, &err));
    cr_expect(d.identical && d.kl == 0 && d.same_top == tokens && divergence_kl_error(&d) == 0);
    session_free(twin);
    for (int i = 0; i < 2; i++) session_free(s[i]), model_free(m[i]), model_file_close(f[i]);
    text_free(&bytes);
}

// --- the program ---------------------------------------------------------------------------------------------------

static int run(const char *arguments) {
    char command[1024];
    snprintf(command, sizeof command, PROGRAMS "/run %s >'%s/out' 2>'%s/err'", arguments, dir, dir);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int runf(const char *format, ...) PRINTF_LIKE(1, 2);
static int runf(const char *format, ...) {
    char arguments[800];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    return run(arguments);
}
static bool told(const char *file, const char *what) {
    struct text t = {0};
    struct err err;
    cr_assert(file_read_all(in_dir(file), 1 << 20, &t, &err), "%s", err.text);
    bool found = t.data && strstr(t.data, what);
    if (!found) fprintf(stderr, "not told: \"%s\" in\n%s", what, t.data ? t.data : "");
    text_free(&t);
    return found;
}
static bool no_leftovers(void) {
    char command[128];
    snprintf(command, sizeof command, "ls '%s' | grep -q unchecked", dir);
    return system(command) != 0;
}

#define STORIES "-m data/stories-1m.gguf "

Test(quantize, program_reports_on_what_the_source_writes) {
    cr_expect(runf(STORIES "--quantize Q4_K_M --json -o %s", in_dir("q.gguf")) == 0);
    cr_expect(told("err", "that the source wrote itself (temperature 1, seed 1)") && told("err", "bits per weight") &&
              told("err", "same first choice") && told("err", "quantized already"));
    cr_expect(told("out", "\"kl\":") && told("out", "\"ratio_error\":") && told("out", "\"type\":\"Q4_K_M\""));
    struct model_file *f = open_file(in_dir("q.gguf"));
    int64_t type = 0;
    struct err err;
    cr_expect(meta_int(f, "general.file_type", true, 0, 100, &type, &err) && type == 15);
    model_file_close(f);
    cr_expect(no_leftovers());
    cr_expect(runf(STORIES "--quantize Q4 -o %s", in_dir("x.gguf")) == 2 && told("err", "--list names them"));
    cr_expect(runf(STORIES "--quantize Q2_K_S -o %s", in_dir("x.gguf")) == 2 && told("err", "give --imatrix FILE"));
    cr_expect(runf(STORIES "--quantize MXFP4 -o %s", in_dir("x.gguf")) == 2 && told("err", "--pure"));
    cr_expect(runf(STORIES "--quantize Q8_0 --imatrix none -o %s", in_dir("x.gguf")) == 1 && told("err", "none"));
    cr_expect(!file_exists(in_dir("x.gguf")));
}

Test(quantize, program_weighs_by_a_text_and_reports_on_the_rest) {
    cr_expect(runf(STORIES "--imatrix README.md -c 128 -o %s", in_dir("m.gguf")) == 0 && told("err", "importance matrix:"));
    cr_expect(runf(STORIES "--quantize Q2_K --imatrix README.md -c 128 -o %s", in_dir("t.gguf")) == 0);
    cr_expect(told("err", "which the importance matrix has not seen"));
    cr_expect(runf(STORIES "--quantize Q2_K --imatrix %s --report-text README.md -c 128 --chunks 2 -o %s", in_dir("m.gguf"), in_dir("f.gguf")) == 0);
    cr_expect(told("err", "measured on README.md, chunks of 128"));
    struct model_file *f = open_file(in_dir("f.gguf"));
    struct span from = {0};
    struct err err;
    cr_expect(meta_text(f, "quantize.imatrix.dataset", true, &from, &err) && span_is(from, "README.md"));
    model_file_close(f);
    cr_expect(runf(STORIES "--quantize Q4_0 --imatrix tests/golden/imatrix_phi3.gguf -o %s", in_dir("x.gguf")) == 1);
    cr_expect(told("err", "another model") && !file_exists(in_dir("x.gguf")) && no_leftovers());
    cr_expect(runf(STORIES "--imatrix README.md -c 128") == 2 && told("err", "-o"));
}

Test(quantize, program_compares_two_models) {
    cr_assert(runf(STORIES "--quantize Q5_0 -o %s", in_dir("q.gguf")) == 0);
    cr_expect(runf("-m %s --kl-against data/stories-1m.gguf -f README.md -c 128 --chunks 4", in_dir("q.gguf")) == 0);
    cr_expect(told("out", "KL(reference || model)") && told("out", "ratio"));
    cr_expect(runf("-m data/stories-1m.gguf --kl-against data/stories-1m.gguf --perplexity README.md -c 128 --chunks 2 --json") == 0);
    cr_expect(told("out", "\"identical\":true") && told("out", "\"kl\":0,"));
    cr_expect(run(STORIES "--kl-against tests/golden/model_llama.gguf -f README.md") == 1 && told("err", "the vocabularies differ"));
    cr_expect(run(STORIES "--kl-against data/stories-1m.gguf") == 2 && told("err", "-f or --perplexity"));
}

// A copy of a model with one weight that is no number.
static void put_spoiled(const char *name) {
    struct text t = {0};
    struct err err;
    const float nan = NAN;
    cr_assert(file_read_all("tests/golden/model_llama.gguf", 1 << 20, &t, &err));
    struct model_file *f = model_file_open_bytes(t.data, t.len, "model", &err);
    cr_assert(f, "%s", err.text);
    const struct file_tensor *w = model_file_tensor(f, "output_norm.weight");
    cr_assert(w && w->dtype == DTYPE_F32);
    memcpy(t.data + ((const char *)w->data - t.data), &nan, sizeof nan);
    model_file_close(f);
    put(name, t.data, t.len);
    text_free(&t);
}

Test(quantize, what_fails_its_check_is_not_kept) {
    cr_expect(runf(STORIES "--export hf --dtype f16 -o %s", in_dir("hf")) == 0 && no_leftovers());
    cr_expect(file_exists(in_dir("hf/config.json")) && file_exists(in_dir("hf/model.safetensors")));
    put_spoiled("nan.gguf");
    cr_expect(runf("-m %s --quantize Q8_0 -o %s", in_dir("nan.gguf"), in_dir("x.gguf")) == 3);
    cr_expect(told("err", "which is not kept") && !file_exists(in_dir("x.gguf")) && no_leftovers());
    cr_expect(runf("-m %s --export hf --dtype f16 -o %s", in_dir("nan.gguf"), in_dir("folder")) == 3);
    cr_expect(told("err", "not kept") && !file_exists(in_dir("folder/config.json")) && no_leftovers());
    put("q.gguf", "was here", 8); // and what stood there stays
    cr_expect(runf("-m %s --quantize Q8_0 -o %s", in_dir("nan.gguf"), in_dir("q.gguf")) == 3 && told("q.gguf", "was here"));
    cr_expect(runf(STORIES "--quantize Q8_0 --report-text %s -o %s", in_dir("none"), in_dir("x.gguf")) == 1);
    cr_expect(!file_exists(in_dir("x.gguf")) && no_leftovers());
    cr_expect(runf(STORIES "--export gguf -o %s", in_dir("no/such/folder.gguf")) == 1 && no_leftovers());
}
