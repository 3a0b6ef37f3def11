// test_tune.c: numbers that nobody gave: each by its formula, each overridden by its option.
#include "core/core.h"
#include "learn/learn.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *read_text(const char *name) { return read_file(name).data; } // the caller frees

// ---- formulas -----------------------------------------------------------------------------------------------------

// Relative, of values worked out apart from this program (Step Law: methods A.4; the others by hand).
#define EXPECT_NEAR(got, want, tolerance) cr_expect(fabs((got) / (want) - 1) < (tolerance), "%.6g, expected %.6g", (double)(got), (double)(want))

Test(tune, rules_are_their_formulas) {
    static const struct {
        double body, tokens, lr, batch;
    } law[] = {{1e7, 1e9, 1.06e-2, 8.0e4}, {8.5e7, 1e9, 2.30e-3, 8.0e4}, {1.24e8, 1e10, 3.57e-3, 2.98e5}, {1e9, 1e11, 1.63e-3, 1.11e6}, {7e9, 1.4e12, 9.2e-4, 5.0e6}};
    for (size_t i = 0; i < COUNT_OF(law); i++) {
        struct known k = {.body = law[i].body, .tokens = law[i].tokens};
        EXPECT_NEAR(step_law_lr(k.body, k.tokens), law[i].lr, 6e-3);
        EXPECT_NEAR(rule_value("batch-tokens", &k), law[i].batch, 1e-2);
        double held = fmin(fmax(law[i].lr, 1e-4), 4e-3);
        EXPECT_NEAR(rule_value("lr", &k), held, 6e-3);
    }
    EXPECT_NEAR(rule_value("batch-tokens", &(struct known){.tokens = 1e7}), 0.5 * 0.58 * pow(1e7, 0.571), 1e-12);
    // Twenty tokens a parameter, both ways; the text and the clock limit.
    struct known k = {.params = 3e6, .ratio = 20, .text = 1e9};
    EXPECT_NEAR(rule_value("tokens", &k), 6e7, 1e-12);
    k.text = 1e6;
    EXPECT_NEAR(rule_value("tokens", &k), 1.6e7, 1e-12);
    k.seconds = 100, k.pace = 5000;
    EXPECT_NEAR(rule_value("tokens", &k), 5e5, 1e-12);
    EXPECT_NEAR(rule_value("size", &(struct known){.tokens = 1e9, .ratio = 20}), 5e7, 1e-12);
    // The power law has its own numbers where it was fitted, for muP and for power only.
    k = (struct known){.params = 3e6, .tokens = 1e9, .batch = 262144, .mup = true, .power = true};
    EXPECT_NEAR(rule_value("lr", &k), 0.02, 1e-12);
    EXPECT_NEAR(rule_value("power-a", &k), 4, 1e-12);
    cr_expect(rule_is_inside(rule_find("power-a", &k), &k) && rule_is_inside(rule_find("lr", &k), &k));
    k.batch = 4096;
    EXPECT_NEAR(rule_value("lr", &k), 0.01, 1e-12);
    EXPECT_NEAR(rule_value("power-a", &k), 4, 1e-12);
    cr_expect(!rule_is_inside(rule_find("power-a", &k), &k) && !rule_is_inside(rule_find("lr", &k), &k));
    k.power = false, k.batch = 262144;
    EXPECT_NEAR(rule_value("lr", &k), 0.01, 1e-12);
    // Every name has a row without a condition, so that one always holds.
    for (int i = 0; i < rule_count; i++) {
        int last = i;
        for (int j = i; j < rule_count; j++)
            if (!strcmp(rules[j].name, rules[i].name)) last = j;
        cr_expect(rules[last].holds == NULL, "--%s", rules[i].name);
    }
}

// ---- one dial -----------------------------------------------------------------------------------------------------

TestSuite(dial, .init = make_scratch, .fini = drop_scratch, .timeout = 100);

#define SMALL "corpus.txt --seq 32 --tokenizer bpe:300 --plan -t 1"

static void make_corpus(void) { cr_assert(shell("$STORIES --bytes 60000 -s 5 --out corpus.txt 2>/dev/null") == 0); }

// What --plan says for these options.
static char *plan_of(const char *options) {
    cr_assert(shell("$TRAIN " SMALL " %s -o out >said 2>&1", options) == 0, "%s", options);
    return read_text("said");
}

Test(dial, one_of_size_tokens_and_time_is_enough) {
    make_corpus();
    // The 1M shape with 300 tokens has 0.55M weights; 3M has 2.5M. The text is short, so 16 times it. 1M tokens: 0.29 D^0.571
    // = 774, below the least batch of 1024.
    static const struct {
        const char *options, *lines[6];
    } rows[] = {
        {"--tokens 1m", {"--size 1M:", "--batch-tokens 1.02k:", "--power-a 4:", "--lr 0.01:", "--decay 0.5:", "--warmup 51.2k:"}},
        {"--tokens 3m --ratio 1.2 --optimizer lion", {"--size 3M:", "--lr 0.002:"}},
        {"--size 1M --ratio 0.01 --batch-tokens 65536", {"--tokens 65.5k: --ratio a parameter", "--lr 0.02:", "--power-a 4:", "tokens a batch, inside"}},
        {"--size 1M", {"--tokens 631k: 16 times the text", "fitted for 4G to 100G tokens, OUTSIDE: "}},
        {"--time 1s", {"--size 1M: the largest", "--tokens ", " tokens/s"}},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *said = plan_of(rows[i].options);
        for (int j = 0; j < 6 && rows[i].lines[j]; j++)
            cr_expect(strstr(said, rows[i].lines[j]), "%s: no `%s` in\n%s", rows[i].options, rows[i].lines[j], said);
        mem_free(said);
    }
}

Test(dial, every_override_sticks) {
    make_corpus();
    static const struct {
        const char *options, *without;
    } rows[] = {
        {"--size 1M --tokens 100k --batch-tokens 2048 --lr 0.004 --power-a 5 --warmup 0.1 --decay 0.3", "derived:"},
        {"--width 32 --layers 2 --heads 2 --steps 20 --batch-tokens 1024 --lr 0.004 --warmup -1 --schedule cosine", "derived:"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *said = plan_of(rows[i].options);
        cr_expect(!strstr(said, rows[i].without), "%s: %s", rows[i].options, said);
        mem_free(said);
    }
    // What was said arrives in the steps: the largest rate, the batch and the number of tokens.
    cr_assert(shell("$TRAIN corpus.txt --seq 32 --tokenizer bpe:300 --width 32 --layers 2 --heads 2 --tokens 8192 --batch-tokens 512 --lr 0.003 "
                    "--schedule wsd --warmup -1 --samples 0 -o run 2>said") == 0);
    struct log_rows log = {0};
    struct err err = {""};
    struct text path = {0};
    text_fmt(&path, "%s/run/log.jsonl", scratch);
    cr_assert(log_read(path.data, &log, &err), "%s", err.text);
    double lr = 0, tokens = 0;
    for (size_t i = 0; i < log.count; i++) {
        if (isfinite(log.row[i].lr)) lr = fmax(lr, log.row[i].lr);
        if (isfinite(log.row[i].lr)) cr_expect(log.row[i].batch == 512);
        tokens = fmax(tokens, (double)log.row[i].tokens);
    }
    cr_expect(lr == 0.003 && tokens == 8192, "%g %g", lr, tokens);
    log_rows_free(&log);
    text_free(&path);
}

// ---- the coordinate check -----------------------------------------------------------------------------------------

Test(tune, slopes_are_powers) {
    double x[5], y[5];
    for (int i = 0; i < 5; i++) x[i] = 64 << i, y[i] = 3 * pow(x[i], -0.37);
    EXPECT_NEAR(log_slope(x, y, 5), -0.37, 1e-9);
}

Test(dial, activations_keep_their_size_under_mup_and_not_without) {
    make_corpus();
    cr_expect(shell("$TRAIN corpus.txt --seq 64 -t 1 --tokenizer bpe:300 --layers 2 --coord-check --check-widths 64,128,256 -o out >said 2>err") == 0);
    char *said = read_text("said");
    cr_expect(strstr(said, "coordinate check: PASS: muP fails in 0 of 9 tensors"), "%s", said);
    const char *control = strstr(said, "control: no scaling");
    cr_assert(control);
    for (int k = 1; k < COORD_COUNT; k++) { // all but the embedding, which does not depend on the width either way
        const char *line = strstr(control, coord_names[k]);
        cr_assert(line);
        cr_expect(!memcmp(strchr(line, '\n') - 4, "FAIL", 4), "%s passes without scaling", coord_names[k]);
    }
    mem_free(said);
    cr_expect(shell("$TRAIN corpus.txt --seq 32 --tokenizer bpe:300 --family llama --coord-check -o out 2>err") == 2);
    cr_expect(shell("$TRAIN corpus.txt --seq 32 --tokenizer bpe:300 --coord-check --check-widths 64,100 -o out 2>err") == 2);
}

// ---- the sweep ----------------------------------------------------------------------------------------------------

#define PROXY "corpus.txt --seq 32 --tokenizer bpe:300 --layers 2 --heads 2 --width 64 --tune --tune-tokens 2048 --batch-tokens 256"

// The losses in the comments of a tuned.config, in order of the values; the chosen value.
static int read_trials(const char *text, double *value, double *loss, double *chosen) {
    int n = 0;
    const char *line = strstr(text, "validation loss\n");
    cr_assert(line);
    while ((line = strchr(line, '\n')) && sscanf(++line, "# %lf %lf", &value[n], &loss[n]) == 2) n++;
    cr_assert(line && sscanf(line, "lr = %lf", chosen) == 1, "%s", text);
    return n;
}

Test(dial, a_sweep_says_the_same_twice_and_its_answer_is_taken) {
    make_corpus();
    double value[64], loss[64], chosen;
    cr_assert(shell("$TRAIN " PROXY " -t 1 -o a >said 2>err && $TRAIN " PROXY " -t 2 --micro-batch 3 -o b >said 2>err") == 0);
    cr_expect(shell("cmp a/tuned.config b/tuned.config") == 0);
    cr_expect(shell("test -e a/model.gguf") != 0, "a sweep leaves no model");
    char *text = read_text("a/tuned.config");
    int n = read_trials(text, value, loss, &chosen), best = 0;
    cr_assert(n >= 11);
    for (int i = 1; i < n; i++) {
        cr_expect(value[i] > value[i - 1]);
        if (loss[i] < loss[best]) best = i;
    }
    // Tuned is the width of the run and its batch, so the factor is 1 and the best is the answer.
    cr_expect(chosen == value[best], "%g, the best is %g:\n%s", chosen, value[best], text);
    mem_free(text);
    cr_assert(shell("$TRAIN corpus.txt --seq 32 --tokenizer bpe:300 --layers 2 --heads 2 --width 64 --steps 10 --batch-tokens 256 --samples 0 "
                    "--config a/tuned.config -o c 2>err") == 0);
    char line[64], *err = read_text("err");
    snprintf(line, sizeof line, "cap %g,", chosen);
    cr_expect(strstr(err, line) && !strstr(err, "derived: --lr") && !strstr(err, "derived: --power-a"), "%s", err);
    mem_free(err);
}

Test(dial, a_sweep_ends_cleanly) {
    make_corpus();
    double value[64], loss[64], chosen;
    // By the clock: one run is always made, and the answer tells.
    cr_assert(shell("$TRAIN " PROXY " --tune-time 0s --schedule wsd -o short >said 2>err") == 0);
    char *text = read_text("short/tuned.config");
    cr_expect(read_trials(text, value, loss, &chosen) == 1 && strstr(text, "--tune-time ended the sweep") && !strstr(text, "power-a"), "%s", text);
    mem_free(text);
    // By a signal: nothing is written.
    cr_expect(shell("$TRAIN " PROXY " --tune-tokens 10m -o cut >said 2>err & sleep 1; kill -INT $!; wait $!") == 130);
    cr_expect(shell("test -e cut/tuned.config") != 0);
    // Runs that diverge lose to all others; when all do, there is no answer.
    cr_assert(shell("$TRAIN " PROXY " --lr 0.04 --schedule wsd -o high >said 2>err") == 0);
    char *err = read_text("err");
    cr_expect(strstr(err, "diverged"), "%s", err);
    mem_free(err);
    text = read_text("high/tuned.config");
    int n = read_trials(text, value, loss, &chosen);
    cr_expect(isinf(loss[n - 1]) && isfinite(loss[0]) && chosen < value[n - 1], "%s", text);
    mem_free(text);
    cr_expect(shell("$TRAIN " PROXY " --optimizer sgd --clip 0 --guard 0 --lr 40 --schedule wsd --warmup -1 --tune-time 0s -o none 2>err") == 1 && shell("test -e none/tuned.config") != 0);
    cr_expect(shell("$TRAIN " PROXY " --tune-what rate -o no 2>err") == 2);
    cr_expect(shell("$TRAIN " PROXY " --valid-share 0 -o no 2>err") == 1);
}
