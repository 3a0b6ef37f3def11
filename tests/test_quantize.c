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
