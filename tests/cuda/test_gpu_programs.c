// test_gpu_programs.c: ./train and ./run with --device cuda do what they do with --device cpu.
#include "core/core.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];
static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/lehr-gpu-XXXXXX");
    cr_assert(mkdtemp(folder));
}
static void drop_folder(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command)) cr_log_error("%s stays", folder);
}

// Standard output of a program of this build; its words beside it go to FOLDER/err.
static struct text output(const char *command) {
    struct text line = {0}, out = {0};
    text_fmt(&line, "%s/%s 2>%s/err", PROGRAMS, command, folder);
    FILE *f = popen(line.data, "r");
    cr_assert(f);
    char piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) text_add(&out, piece, n);
    const int status = pclose(f);
    cr_assert(status == 0, "%s: status %d", line.data, status);
    text_free(&line);
    text_add(&out, "", 0);
    return out;
}

// A text of its own: words that follow each other by a rule, so that there is something to learn.
static void write_corpus(void) {
    static const char *const words[] = {"glass", "oven", "slow", "warm", "hold", "cool", "break", "never"};
    struct text path = {0};
    text_fmt(&path, "%s/corpus.txt", folder);
    FILE *f = fopen(path.data, "w");
    cr_assert(f);
    for (int i = 0, at = 0; i < 4000; i++) {
        fprintf(f, "%s%s", words[at], i % 9 == 8 ? ".\n" : " ");
        at = (3 * at + (i % 5 == 0) + 1) % (int)COUNT_OF(words);
    }
    fclose(f);
    text_free(&path);
}

// Losses by step of OUT/log.jsonl.
static int losses_of(const char *out, double *to, int most) {
    struct text path = {0}, log = {0};
    struct err err;
    int n = 0;
    text_fmt(&path, "%s/%s/log.jsonl", folder, out);
    cr_assert(file_read_all(path.data, 1 << 22, &log, &err), "%s", err.text);
    for (const char *at = log.data; (at = strstr(at, "\"loss\":")) && n < most; at++) to[n++] = strtod(at + 7, NULL);
    text_free(&path), text_free(&log);
    return n;
}

static int steps(void) { return getenv("LEHR_LONG") ? 100 : 20; } // a hundred take a minute where a processor stands for the GPU

static void train(const char *device, const char *out, const char *options) {
    struct text line = {0};
    text_fmt(&line, "train %s/corpus.txt -o %s/%s --device %s --tokenizer byte --size 1M --width 32 --layers 2 --heads 2 --kv-heads 1 --seq 32 "
                    "--batch-tokens 128 --steps %d --lr 0.003 -s 3 -t 1 --samples 0 --save-seconds 1000000 --eval-tokens 64 %s",
             folder, folder, out, device, steps(), options);
    struct text said = output(line.data);
    text_free(&line), text_free(&said);
}

static void expect_near(const char *a, const char *b, double apart) {
    enum { MOST = 200 };
    double x[MOST], y[MOST];
    const int n = losses_of(a, x, MOST);
    cr_assert(n >= steps());
    cr_assert_eq(losses_of(b, y, MOST), n);
    for (int i = 0; i < n; i++) cr_assert(fabs(x[i] - y[i]) <= apart * y[i], "step %d: %g and %g", i + 1, x[i], y[i]);
    cr_assert(x[n - 1] < x[0] - .3, "nothing was learned: %g, then %g", x[0], x[n - 1]);
}

TestSuite(gpu_programs, .timeout = 300);

Test(gpu_programs, steps_are_those_of_the_processor) {
    make_folder(), write_corpus();
    train("cuda", "gpu", ""), train("cpu", "cpu", "");
    expect_near("gpu", "cpu", 1e-4);
    drop_folder();
}
Test(gpu_programs, steps_in_bf16_are_near_those_of_the_processor) {
    make_folder(), write_corpus();
    train("cuda", "gpu", "--dtype bf16 --optimizer muon"), train("cpu", "cpu", "--dtype bf16 --optimizer muon");
    expect_near("gpu", "cpu", 2e-2);
    drop_folder();
}

static struct text story(const char *device, const char *options) {
    struct text line = {0};
    text_fmt(&line, "run -p \"Once there was a\" -n 24 -s 5 -t 1 --device %s %s", device, options);
    struct text said = output(line.data);
    text_free(&line);
    return said;
}
static void expect_same(const char *options, const char *device, const char *other, const char *more) {
    struct text both = {0};
    text_fmt(&both, "%s %s", options, more);
    struct text a = story(device, options), b = story(other, both.data);
    cr_assert(a.len > 20);
    cr_assert_str_eq(a.data, b.data);
    text_free(&a), text_free(&b), text_free(&both);
}

Test(gpu_programs, greedy_text_is_that_of_the_processor) {
    make_folder();
    expect_same("--temp 0 --spec none", "cuda", "cpu", "");
    drop_folder();
}
Test(gpu_programs, guesses_change_no_byte) {
    make_folder();
    expect_same("--temp 0.9", "cuda", "cuda", "--spec none");
    expect_same("--temp 0.9 --spec ngram --no-spec-adapt", "cuda", "cuda", "--spec none");
    drop_folder();
}
Test(gpu_programs, training_goes_on_to_the_same_bytes) {
    make_folder(), write_corpus();
    train("cuda", "whole", "--save-every 10 --keep 9");
    struct text command = {0};
    text_fmt(&command, "cd %s && cp -r whole half && rm half/model.gguf half/ckpt-2560.gguf", folder);
    cr_assert(system(command.data) == 0, "%s", command.data);
    train("cuda", "half", "--save-every 10 --keep 9");
    text_clear(&command);
    text_fmt(&command, "cd %s && cmp whole/model.gguf half/model.gguf", folder);
    cr_assert(system(command.data) == 0, "the model differs");
    text_free(&command);
    drop_folder();
}
Test(gpu_programs, says_where_it_computes) {
    make_folder();
    struct text said = output("run --version --device cuda");
    cr_assert(strstr(said.data, "lehr run: cuda: "), "%s", said.data);
    text_free(&said);
    drop_folder();
}
