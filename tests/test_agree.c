// test_agree.c: fifty steps of ./train are those of PyTorch.
//
// tests/golden/training.txt has runs and their losses as tests/make_training_goldens.py computed them in float64 from the
// same weights and texts: granite with its multipliers and the rates of muP, llama, qwen3, experts with either balance; AdamW
// and Muon; several documents in a sequence, clipping in some steps, decay of matrices only, warmups and ways down. How far
// PyTorch's own float32 lies from its float64 is in the file too, and ten times that is what we may differ by, at most 1e-4.
//
// Controls: one number a little wrong makes a difference that would be seen.
#include "core/core.h"
#include "learn/learn.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 50 };

// The texts of make_training_goldens.py: stories whose paragraphs are documents.
static void make_texts(void) {
    make_scratch();
    cr_assert(shell("for w in '20000 -s 5 corpus' '3000 -s 6 held'; do set -- $w; $STORIES --bytes $1 $2 $3 --out a 2>/dev/null && "
                    "sed 's/^$/<|endoftext|>/' a >$4.txt || exit 1; done") == 0);
}

TestSuite(agree, .init = make_texts, .fini = drop_scratch, .timeout = 200);

// ---- the golden ---------------------------------------------------------------------------------------------------

struct run {
    char name[64], options[512];
    double rounding, loss[STEPS + 1]; // the last one on the held-out text
};

static struct run *read_golden(size_t *count) {
    FILE *f = fopen("tests/golden/training.txt", "r");
    struct run *runs = NULL;
    size_t cap = 0;
    char line[1024];
    cr_assert(f != NULL);
    *count = 0;
    while (fgets(line, sizeof line, f)) {
        struct run *r = runs ? runs + *count - 1 : NULL;
        double x;
        int step;
        if (strncmp(line, "run ", 4) == 0) {
            mem_grow((void **)&runs, &cap, *count + 1, sizeof *runs, "runs");
            r = &runs[(*count)++];
            *r = (struct run){0};
            cr_assert(sscanf(line, "run %63s %511[^\n]", r->name, r->options) == 2, "%s", line);
        } else if (sscanf(line, "f64-f32 %lf", &x) == 1) r->rounding = x;
        else if (sscanf(line, "step %d %lf", &step, &x) == 2 && step >= 1 && step <= STEPS) r->loss[step - 1] = x;
        else if (sscanf(line, "valid %lf", &x) == 1) r->loss[STEPS] = x;
        else cr_assert_fail("%s", line);
    }
    fclose(f);
    return runs;
}

// Trains with one more option, which may be "", and returns the largest difference from the golden over all losses.
static double difference(const struct run *r, const char *also) {
    struct log_rows rows = {0};
    struct err err = {""};
    char path[256];
    double got[STEPS + 1], far = 0;
    size_t n = 0;
    cr_assert(shell("rm -rf out; $TRAIN corpus.txt --valid held.txt %s %s --samples 0 -t 1 -o out 2>log", r->options, also) == 0, "%s", r->name);
    snprintf(path, sizeof path, "%s/out/log.jsonl", scratch);
    cr_assert(log_read(path, &rows, &err), "%s", err.text);
    got[STEPS] = NAN;
    for (size_t i = 0; i < rows.count; i++) {
        const struct log_row *row = &rows.row[i];
        if (isfinite(row->loss) && n < STEPS) got[n++] = row->loss;
        if (row->step == STEPS && isfinite(row->val_loss)) got[STEPS] = row->val_loss;
    }
    log_rows_free(&rows);
    cr_assert(n == STEPS && isfinite(got[STEPS]), "%s: %zu losses", r->name, n);
    for (int i = 0; i <= STEPS; i++) far = fmax(far, fabs(got[i] - r->loss[i]));
    return far;
}

static double tolerance(const struct run *r) { return fmin(10 * r->rounding, 1e-4); }

// ---- tests --------------------------------------------------------------------------------------------------------

Test(agree, fifty_steps_have_the_losses_of_pytorch) {
    size_t n;
    struct run *runs = read_golden(&n);
    cr_assert(n >= 7);
    for (size_t i = 0; i < n; i++) {
        double far = difference(&runs[i], "");
        cr_expect(far < tolerance(&runs[i]), "%s: %.2g, expected below %.2g", runs[i].name, far, tolerance(&runs[i]));
    }
    mem_free(runs);
}

Test(agree, one_number_a_little_wrong_shows) {
    static const struct {
        const char *run, *also;
    } wrong[] = {
        {"granite", "--beta2 0.951"},         {"granite", "--weight-decay 0.301"}, {"granite", "--clip 3.03"},
        {"granite", "--power-a 12.01"},       {"granite", "--no-doc-mask"},        {"granite", "--attention-scale 0.064"},
        {"granite-muon", "--momentum 0.951"}, {"llama", "--beta1 0.901"},          {"qwen3", "--z-loss 0.0101"},
        {"qwen3", "--decay 0.42"},            {"granitemoe", "--balance sequence"}, {"granitemoe", "--balance-coef 0.101"},
    };
    size_t n;
    struct run *runs = read_golden(&n);
    for (size_t k = 0; k < COUNT_OF(wrong); k++) {
        size_t i = 0;
        while (i < n && strcmp(runs[i].name, wrong[k].run) != 0) i++;
        cr_assert(i < n, "%s", wrong[k].run);
        double far = difference(&runs[i], wrong[k].also);
        cr_expect(far > 1e-4, "%s %s: %.2g", wrong[k].run, wrong[k].also, far);
    }
    mem_free(runs);
}
