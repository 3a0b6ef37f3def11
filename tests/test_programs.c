// test_programs.c: what a user types, held to what the README promises.
//
// These tests run the built programs (build/<config>/train and run, the same objects as this binary) in a scratch folder.
// Each promise of the design that can be seen from outside has its test here: same bytes for any thread count, resume
// after kill -9, a full disk, exit codes, hostile files.
#include "core/core.h"
#include "formats/formats.h"
#include "learn/learn.h"
#include "model/model.h"
#include "tests/hostile.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static bool same_file(const char *a, const char *b) {
    struct text x = read_file(a), y = read_file(b);
    bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    text_free(&x);
    text_free(&y);
    return same;
}

// The columns of log.jsonl that do not measure time.
static struct text learned_columns(const char *log) {
    struct log_rows rows = {0};
    struct err err = {""};
    struct text t = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, log);
    cr_assert(log_read(path, &rows, &err), "%s", err.text);
    for (size_t i = 0; i < rows.count; i++)
        if (!rows.row[i].cooled_tokens)
            text_fmt(&t, "%lld %lld %.17g %.17g %.17g %.17g %.17g %.17g %.17g %s %lld %lld %lld %lld %.17g %.17g %.17g %.17g %.17g\n", (long long)rows.row[i].step,
                     (long long)rows.row[i].tokens, rows.row[i].loss, rows.row[i].lr, rows.row[i].grad_norm, rows.row[i].val_loss,
                     rows.row[i].val_loss_replay, rows.row[i].batch, rows.row[i].noise, rows.row[i].skipped ? rows.row[i].skipped : "", (long long)rows.row[i].rollback,
                     (long long)rows.row[i].back_from, (long long)rows.row[i].passed_from, (long long)rows.row[i].passed_to,
                     rows.row[i].aux_loss, rows.row[i].imbalance, rows.row[i].acceptance, rows.row[i].agreement, rows.row[i].exit_loss);
    log_rows_free(&rows);
    return t;
}

static bool same_learning(const char *log_a, const char *log_b) {
    struct text a = learned_columns(log_a), b = learned_columns(log_b);
    bool same = a.len > 0 && a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
    text_free(&a);
    text_free(&b);
    return same;
}

#define TINY "--size 1M --width 32 --layers 2 --heads 2 --kv-heads 1 --ffn 64 --seq 32 --batch-tokens 256 --tokenizer bpe:300 --samples 0"

static void make_corpus(void) {
    cr_assert(shell("$STORIES --bytes 60000 -s 5 --out corpus.txt 2>/dev/null") == 0);
}

#define DRAFT "--width 32 --layers 2 --heads 2 --kv-heads 1 --ffn 64 --seq 32 --batch-tokens 256 --samples 0 --draft-for source/model.gguf "
#define FROM "--seq 32 --batch-tokens 256 --samples 0 --from source/"

// The same stories in other letters: as far from them as a text can be that has the same statistics.
static void make_other_corpus(void) {
    cr_assert(shell("$STORIES --bytes 60000 -s 9 --out plain.txt 2>/dev/null; "
                    "sed '/^<|endoftext|>$/!y/abcdefghijklmnopqrstuvwxyz/nopqrstuvwxyzabcdefghijklm/' plain.txt >other.txt") == 0);
}

TestSuite(programs, .init = make_scratch, .fini = drop_scratch, .timeout = 200);

Test(programs, losses_and_model_are_the_same_for_threads_and_micro_batches) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 12 -t 1 --micro-batch 1 -o base 2>log") == 0);
    const char *variants[] = {"-t 2 --micro-batch 1", "-t 3 --micro-batch 2", "-t 1 --micro-batch 8", "-t 2 --micro-batch 8", "-t 3 --micro-batch 3"};
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        cr_assert(shell("rm -rf other; $TRAIN corpus.txt " TINY " --steps 12 %s -o other 2>log", variants[i]) == 0);
        cr_expect(same_learning("base/log.jsonl", "other/log.jsonl"), "losses differ with %s", variants[i]);
        cr_expect(same_file("base/model.gguf", "other/model.gguf"), "model differs with %s", variants[i]);
    }
    // The control: another seed must not give the same.
    cr_assert(shell("rm -rf other; $TRAIN corpus.txt " TINY " --steps 12 -s 2 -o other 2>log") == 0);
    cr_expect(!same_learning("base/log.jsonl", "other/log.jsonl"));
}

// A rate so high that the run is lost every now and then, and goes back. Plain kernels: the same on every machine.
#define UNSTEADY "--cpu plain --batch-tokens 64 --schedule constant --warmup 1920 --lr 0.25 --beta2 0.999 --clip 0 --guard 2.5 --rollback 20"

// Whatever learns: other threads and micro-batches, and a run that goes on from its middle with less memory, give the same
// bytes.
Test(programs, every_rule_of_learning_keeps_the_promises) {
    static const char *const rows[] = {
        "--schedule power --batch-rule ramp --batch-ramp 2000",
        "--schedule wsd --decay-shape uba --batch-rule adaptive --batch-theta 0.1 --batch-least 64 --tokens 12288",
        "--schedule infinite --decay-shape affine --batch-rule critical --batch-least 32",
        "--schedule inverse-sqrt --batch-rule ramp --batch-lr surge",
        "--schedule rex --batch-rule adaptive --batch-lr linear",
        "--schedule linear-to-zero",
        "--schedule uba --phi 0.5",
        "--schedule cosine --final 0.1",
        "--optimizer nadamw",
        "--optimizer muon --schedule wsd",
        "--optimizer lion",
        "--optimizer adafactor",
        "--optimizer sgd",
        "--optimizer lamb",
        "--optimizer schedule-free --schedule constant --eval-every 5",
        UNSTEADY " --tokens 12288 --save-every 50",
        "--no-save-aside --rollback 40 --batch-tokens 64",
        "--z-loss 0.01",
        "--depth-rule depth-mup --base-layers 1",
        "--dropout 0.2 --head-size 32 --dtype bf16",
        "--family granitemoe --ffn 32 --experts 4 --dtype bf16 --dropout 0.1 --batch-rule ramp --batch-ramp 2000",
        "--family qwen3",
        "--family granitemoe --ffn 32 --experts 4 --dtype bf16",
        "--family granitemoe --ffn 32 --experts 6 --experts-used 3 --balance sequence --router-z 0.01 --optimizer muon",
        "--family granitemoe --ffn 32 --experts 4 --balance-coef 0.1 --optimizer adafactor --probe-decay 2048",
        "--family qwen3moe --ffn 32 --experts 4 --balance none --optimizer lamb",
        FROM "ckpt-2048.gguf --replay other.txt --replay-share 0.3 --batch-rule ramp --batch-ramp 2000",
        FROM "model.gguf --replay other.txt --schedule infinite --cool 2048 --warmup -1 --optimizer muon --eval-every 5",
        FROM "ckpt-2048.gguf --replay other.txt --replay-share 0.5 --schedule wsd --ladder 0.5",
        FROM "ckpt-2048.gguf --replay other.txt --replay-share 0.3 " UNSTEADY " --lr 0.27 --tokens 8192 --save-every 50",
        DRAFT "--draft-tokens 6k --draft-vocab 100",
        "--layers 3 --exit-layer 1 --dropout 0.1 --eval-every 5",
        "--layers 3 --exit-layer 2 --exit-weight 0.5 --no-tied --family granitemoe --ffn 32 --experts 4 --dtype bf16 --z-loss 0.01",
    };
    make_corpus();
    make_other_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 8 --cpu plain -o source 2>log") == 0);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *run = "rm -rf %s; $TRAIN corpus.txt %s --tokens 6144 --save-every 7 --keep 99 %s %s -o %s 2>log";
        const char *shape = strstr(rows[i], "--from") || strstr(rows[i], "--draft-for") ? "" : TINY;
        cr_assert(shell(run, "base", shape, rows[i], "-t 1 --micro-batch 1", "base") == 0, "%s", rows[i]);
        cr_assert(shell(run, "other", shape, rows[i], "-t 2 --micro-batch 8", "other") == 0, "%s", rows[i]);
        cr_expect(same_learning("base/log.jsonl", "other/log.jsonl"), "threads or micro-batch: %s", rows[i]);
        cr_expect(same_file("base/model.gguf", "other/model.gguf"), "threads or micro-batch: %s", rows[i]);
        // All but the first checkpoint are lost, with what follows from them.
        cr_assert(shell("cd other && rm -rf model.gguf report.html trunk && ls ckpt-*.gguf | sort -t- -k2 -n | tail -n +2 | xargs rm") == 0);
        const char *tight = strstr(rows[i], "experts-used") || strstr(rows[i], "--exit-layer") ? "-t 3 --micro-batch 3 --memory 220k"
                            : strstr(rows[i], "--family") || strstr(rows[i], "--head-size") ? "-t 3 --micro-batch 3 --memory 200k"
                                                            : "-t 3 --micro-batch 3 --memory 170k";
        cr_assert(shell(run, "nothing", shape, rows[i], tight, "other") == 0, "%s", rows[i]);
        cr_expect(shell("grep -q '^resume' log && grep -q 'computed again' log") == 0, "%s", rows[i]);
        cr_expect(same_learning("base/log.jsonl", "other/log.jsonl"), "resumed: %s", rows[i]);
        cr_expect(same_file("base/model.gguf", "other/model.gguf"), "resumed: %s", rows[i]);
        if (strstr(rows[i], "--guard")) cr_expect(shell("grep -q back_from base/log.jsonl") == 0, "%s", rows[i]);
    }
}

// Every file that is written says where the model can be left, ./run leaves it there without being told, and other programs' files are as ever.
Test(programs, a_model_that_learned_to_be_left_early_guesses_for_itself) {
    static const struct {
        const char *options, *why; // behind corpus.txt and TINY
    } refused[] = {
        {"--exit-layer 2", "expected fewer than the 2 layers"},
        {"--exit-weight 0.5", "give both"},
        {"--exit-layer 1 --exit-weight -1", "--exit-weight"},
    };
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --layers 3 --exit-layer 1 --steps 30 --save-every 10 --keep 9 -o early 2>log && grep -q 'at the exit' log") == 0);
    cr_assert(shell("$TRAIN corpus.txt " TINY " --layers 3 --steps 30 -o plain 2>log && ! grep -q 'at the exit' log && ! grep -q exit_loss plain/log.jsonl") == 0);
    cr_expect(shell("test $(grep -c exit_loss early/log.jsonl) = $(wc -l <early/log.jsonl) && grep -q 'exit-weight.*0\\.1' early/config") == 0);
    cr_expect(!same_file("early/model.gguf", "plain/model.gguf"));
    cr_assert(shell("ckpt=$(ls early/ckpt-*.gguf | tail -1); cp $ckpt ckpt.gguf; $RUN -m early/model.gguf --quantize q8_0 -o small.gguf 2>err; $RUN -m ckpt.gguf --export gguf -o clean.gguf 2>err") == 0);
    static const char *const files[] = {"early/model.gguf", "ckpt.gguf", "small.gguf", "clean.gguf"};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        cr_assert(shell("$RUN -m %s -p 'Once upon' -n 40 --temp 1 -s 3 --ignore-eos --spec none >a 2>err && ! grep -q '^draft' err", files[i]) == 0, "%s", files[i]);
        cr_expect(shell("$RUN -m %s -p 'Once upon' -n 40 --temp 1 -s 3 --ignore-eos --no-spec-adapt >b 2>err && grep -q '^draft: the first 1 of 3 layers' err", files[i]) == 0, "%s", files[i]);
        cr_expect(same_file("a", "b"), "%s", files[i]);
    }
    cr_expect(shell("$RUN -m early/model.gguf --export hf -o folder 2>err && ! grep -q exit folder/config.json && $RUN -m folder -p 'Once upon' -n 40 --temp 1 -s 3 --ignore-eos >b 2>err && ! grep -q '^draft' err") == 0);
    cr_expect(shell("$RUN -m early/model.gguf -p 'Once upon' -n 40 --temp 1 -s 3 --ignore-eos --spec none >a 2>err") == 0 && same_file("a", "b"));
    // What learns on says whether it goes on with it, and a run cannot change its mind.
    cr_expect(shell("$TRAIN corpus.txt --seq 32 --batch-tokens 256 --samples 0 --from early/model.gguf --steps 2 -o next 2>log && grep -q 'note: .*--exit-layer 1 goes on with it' log && ! grep -q exit_loss next/log.jsonl") == 0);
    cr_expect(shell("$TRAIN corpus.txt --seq 32 --batch-tokens 256 --samples 0 --from early/model.gguf --exit-layer 2 --steps 2 -o other 2>log && grep -q exit_loss other/log.jsonl") == 0);
    cr_expect(shell("$TRAIN corpus.txt --exit-layer 2 -o early 2>log") == 2 && shell("grep -q 'was started with `exit-layer = 1`' log") == 0);
    cr_expect(shell("$TRAIN corpus.txt " TINY " --layers 3 --exit-layer 1 --steps 30 --plan -o planned 2>log") == 0);
    cr_expect(shell("$TRAIN --draft-for early/model.gguf --exit-layer 1 -o draft 2>log") == 2 && shell("grep -q 'guesses for another' log") == 0);
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        cr_expect(shell("$TRAIN corpus.txt " TINY " %s --steps 2 -o refused 2>log", refused[i].options) == 2, "%s", refused[i].options);
        struct text log = read_file("log");
        cr_expect(strstr(log.data, refused[i].why), "%s: %s", refused[i].options, log.data);
        text_free(&log);
    }
}

// Balancing evens out the use of experts, and it is balancing that does: without it a run is less even. What is written is
// a file that ./run reads, from safetensors too.
Test(programs, experts_are_balanced_and_the_model_runs) {
    static const char *const kinds[] = {"global", "sequence", "none"};
    double uneven[3];
    make_corpus();
    for (int i = 0; i < 3; i++) {
        cr_assert(shell("rm -rf %s; $TRAIN corpus.txt " TINY " --family granitemoe --ffn 32 --experts 8 --steps 150 --lr 0.02 --balance %s "
                        "--balance-coef 0.05 -o %s 2>log", kinds[i], kinds[i], kinds[i]) == 0);
        struct log_rows rows;
        struct err err = {""};
        char path[256];
        snprintf(path, sizeof path, "%s/%s/log.jsonl", scratch, kinds[i]);
        cr_assert(log_read(path, &rows, &err), "%s", err.text);
        const struct log_row *last = &rows.row[rows.count - 1];
        int64_t all = 0, steps = 0;
        for (int64_t k = 0; last->use && k < last->layers * last->experts; k++) all += last->use[k];
        cr_assert(last->layers == 2 && last->experts == 8 && all == 2 * 2 * 256, "%lld pairs", (long long)all);
        uneven[i] = 0;
        for (size_t k = rows.count / 2; k < rows.count; k++)
            if (rows.row[k].imbalance > 0) uneven[i] += rows.row[k].imbalance, steps++;
        uneven[i] /= (double)steps;
        log_rows_free(&rows);
    }
    cr_expect(uneven[0] < 0.8 * uneven[2] && uneven[1] < 0.8 * uneven[2], "global %g, sequence %g, none %g", uneven[0], uneven[1], uneven[2]);
    cr_assert(shell("grep -q '<title>expert 7' global/report.html") == 0);
    cr_assert(shell("$RUN -m global/model.gguf -p 'Once upon a time' -n 40 --temp 0 >a 2>err") == 0);
    cr_assert(shell("$RUN -m global/model.gguf --export hf -o folder 2>err && $RUN -m folder -p 'Once upon a time' -n 40 --temp 0 >b 2>err") == 0);
    cr_expect(same_file("a", "b"));
}

// Two of eight experts for each token that is read, in each layer, whoever reads; a model without experts has none to tell of.
Test(programs, scoring_a_text_counts_the_experts_it_goes_through) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --family granitemoe --ffn 32 --experts 8 --steps 20 -o out 2>log") == 0);
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 1 -o dense 2>log") == 0);
    cr_assert(shell("$RUN -m out/model.gguf --perplexity corpus.txt -c 32 --stride 32 --chunks 5 --json -t 1 >a 2>err") == 0);
    cr_assert(shell("$RUN -m out/model.gguf --perplexity corpus.txt -c 32 --stride 32 --chunks 5 --json -t 3 -ub 7 >b 2>err") == 0);
    cr_expect(same_file("a", "b"));
    struct text line = read_file("a");
    char *at = strstr(line.data, "\"experts\":[[");
    cr_assert(at, "%s", line.data);
    for (int layer = 0; layer < 2; layer++) {
        int64_t all = 0, n = 0;
        for (at = strchr(at, layer ? ']' : '['); *at && strchr("[],", *at); at++) continue;
        for (;; at++, n++) {
            all += strtol(at, &at, 10);
            if (*at != ',') break;
        }
        cr_expect(n == 7 && all == 2 * 5 * 31, "layer %d: %lld experts, %lld choices", layer, (long long)n + 1, (long long)all);
    }
    text_free(&line);
    cr_expect(shell("$RUN -m out/model.gguf --perplexity corpus.txt -c 32 --chunks 5 2>err | grep -q '^experts: the busiest of a layer has .* of 3.000 bits, .* of 16 unused$'") == 0);
    cr_expect(shell("$RUN -m dense/model.gguf --perplexity corpus.txt -c 32 --chunks 5 --json 2>err | grep experts") == 1);
}

Test(programs, text_is_the_same_for_threads_and_prompt_chunks) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 30 -o out 2>log") == 0);
    cr_assert(shell("$RUN -m out/model.gguf -p 'Once upon a time' -n 60 -s 7 -t 1 -c 128 >a 2>err") == 0);
    const char *variants[] = {"-t 2", "-t 3", "-t 1 -ub 1", "-t 2 -ub 3", "-tb 2 -t 1"};
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        cr_assert(shell("$RUN -m out/model.gguf -p 'Once upon a time' -n 60 -s 7 -c 128 %s >b 2>err", variants[i]) == 0);
        cr_expect(same_file("a", "b"), "text differs with %s", variants[i]);
    }
    cr_assert(shell("$RUN -m out/model.gguf -p 'Once upon a time' -n 60 -s 8 -c 128 >b 2>err") == 0);
    cr_expect(!same_file("a", "b"), "another seed gave the same text");
}

// Starts the run in its own process and kills it after `ms`; true when it had ended by itself before.
static bool run_and_kill(const char *arguments, int ms) {
    char program[4200], line[8400];
    snprintf(program, sizeof program, "%s/" PROGRAMS "/train", origin);
    snprintf(line, sizeof line, "cd '%s' && exec '%s' %s 2>>log", scratch, program, arguments);
    pid_t child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    int status;
    for (int waited = 0; waited < ms; waited++) {
        if (waitpid(child, &status, WNOHANG) == child) {
            cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "train ended with %d", status);
            return true;
        }
        usleep(1000);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return false;
}

Test(programs, killed_twenty_times_the_run_ends_as_if_never_killed) {
    make_corpus();
    const char *args = "corpus.txt " TINY " --steps 60 --save-every 3 --eval-every 10 -o killed";
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 60 --save-every 3 --eval-every 10 -o whole 2>log") == 0);
    int kills = 0, starts = 0;
    for (; starts < 200; starts++) {
        int ms = 20 + (int)rng_below(4, 1, (uint64_t)starts, 230);
        if (kills >= 20) ms = 60000;
        if (run_and_kill(args, ms)) {
            if (kills >= 20) break;
            // Finished before it was killed often enough: begin again from an earlier checkpoint, as after a lost disk.
            cr_assert(shell("rm -f killed/model.gguf killed/log.jsonl killed/ckpt-*; rm -rf killed/trunk") == 0);
            continue;
        }
        kills++;
    }
    cr_expect(kills >= 20, "only %d kills", kills);
    cr_expect(same_learning("whole/log.jsonl", "killed/log.jsonl"), "losses differ after %d kills", kills);
    cr_expect(same_file("whole/model.gguf", "killed/model.gguf"), "model differs after %d kills", kills);
}

// The same with a run that goes back again and again, killed while it writes, while it goes back, and between.
Test(programs, killed_as_it_goes_back_the_run_ends_as_if_never_killed) {
    make_corpus();
    const char *args = "corpus.txt " TINY " " UNSTEADY " --tokens 12288 --save-every 17 -o killed";
    double start = time_now();
    cr_assert(shell("$TRAIN corpus.txt " TINY " " UNSTEADY " --tokens 12288 --save-every 17 -o whole 2>log") == 0);
    const double whole_ms = 1000 * (time_now() - start); // a checkpoint comes after a tenth of it
    cr_expect(shell("test $(grep -c back_from whole/log.jsonl) -ge 3 && test $(ls whole/rollback-*.txt | wc -l) -ge 3 && "
                    "grep -q 'passing over sequences' log && grep -q 'went back here' whole/report.html") == 0);
    for (int starts = 0, kills = 0; starts < 60; starts++) {
        int ms = (int)(whole_ms * (0.1 + 0.4 * rng_uniform(5, 1, (uint64_t)starts)));
        if (run_and_kill(args, kills >= 12 ? 60000 : ms)) break;
        kills++;
    }
    cr_expect(shell("grep -q '^resume' log") == 0);
    cr_expect(same_learning("whole/log.jsonl", "killed/log.jsonl"));
    cr_expect(same_file("whole/model.gguf", "killed/model.gguf"));
    cr_expect(shell("test $(ls killed/good | wc -l) -le 3 && ! ls killed/*.tmp-* killed/good/*.tmp-* 2>/dev/null") == 0);
}

Test(programs, a_run_that_cannot_be_saved_by_going_back_ends_in_a_sentence) {
    make_corpus();
    cr_expect(shell("$TRAIN corpus.txt " TINY " " UNSTEADY " --lr 0.3 --guard 2 --tokens 12288 -o lost 2>err") == 1);
    cr_expect(shell("grep -q 'after 3 returns to the state at .* tokens' err && ls lost/good/ckpt-*.gguf >said") == 0);
    // Where the state to go back to was lost, that is said, and the run goes on as without one.
    cr_expect(shell("$TRAIN corpus.txt " TINY " " UNSTEADY " --tokens 11008 --save-every 5 -o gone 2>err && rm -rf gone/good gone/model.gguf gone/report.html; "
                    "$TRAIN corpus.txt " TINY " " UNSTEADY " --tokens 12288 --override -o gone 2>err") == 0);
    cr_expect(shell("grep -q 'there is no way back' err") == 0);
}

Test(programs, a_run_whose_files_do_not_fit_is_refused_before_it_starts) {
    make_corpus();
    cr_expect(shell("$TRAIN corpus.txt --size 1B --tokenizer bpe:300 --steps 1000000 --batch-tokens 1024 --save-every 1 --keep 100000 -o big 2>err") == 1);
    cr_expect(shell("grep -q 'this run needs .* of disk (.* checkpoints of .*GB' err && grep -q -- --keep err && test $(tail -n 1 err | wc -l) -eq 1") == 0);
}

// Writes a checkpoint whose parameter of that name has one weight that is not finite, into a folder of its own.
static void poison(const char *from, const char *folder, const char *name) {
    struct err err = {""};
    char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, from);
    struct model_file *f = model_file_open(path, &err);
    struct run_state state;
    struct model_config c;
    cr_assert(f && config_read(&c, f, &err) && checkpoint_read_state(f, &state, &err), "%s", err.text);
    struct model *m = model_new(&c, backend_cpu("plain", &err), DTYPE_F32, 1, &err);
    struct optimizer *o = optimizer_new(m, &(struct optimizer_options){.beta1 = 0.9, .beta2 = 0.95}, &err);
    struct tokenizer *t = tokenizer_from_file(f, &err);
    cr_assert(t && checkpoint_read_tensors(f, m, o, &err), "%s", err.text);
    for (int i = 0; i < m->n_params; i++)
        if (strcmp(m->params[i].name, name) == 0) ((float *)m->params[i].w.data)[5] = NAN;
    snprintf(path, sizeof path, "%s/%s", scratch, folder);
    cr_assert(checkpoint_save(path, m, t, o, &state, 1, &err), "%s", err.text);
    text_free(&state.options), tokenizer_free(t), optimizer_free(o), model_free(m), model_file_close(f);
}

Test(programs, what_is_not_finite_is_named) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 5 -o out 2>log") == 0);
    poison("out/ckpt-1280.gguf", "sick", "blk.1.attn_v.weight");
    cr_expect(shell("$TRAIN corpus.txt --steps 40 --override -o sick 2>err") == 1);
    cr_expect(shell("grep -q 'first not finite: what enters blk.1.attn_output.weight, row 0 of sequence 40 (token .*; of the weights: blk.1.attn_v.weight' err && "
                    "test $(grep -c 'first not finite' err) -eq 1") == 0);
    // Rows that enter experts are no rows of the sequence: the expert is named. Weight 0 of up belongs to expert 0.
    const char *moe = "corpus.txt " TINY " --family granitemoe --ffn 32 --experts 4 --experts-used 2";
    cr_assert(shell("$TRAIN %s --steps 5 -o moe 2>log", moe) == 0);
    poison("moe/ckpt-1280.gguf", "sick-moe", "blk.1.ffn_up_exps.weight");
    cr_expect(shell("$TRAIN corpus.txt --steps 40 --override -o sick-moe 2>err") == 1);
    cr_expect(shell("grep -q 'first not finite: what enters blk.1.ffn_down_exps.weight, expert 0, in sequence .*; of the weights: blk.1.ffn_up_exps.weight' err") == 0);
    cr_expect(shell("$TRAIN corpus.txt " TINY " --optimizer sgd --lr 100 --schedule constant --guard 0 --clip 0 --warmup -1 --steps 200 -o far 2>err") == 1);
    cr_expect(shell("grep -q 'first not finite: .*the weights are finite' err && grep -q '20 steps in a row' err") == 0);
}

// A signal in the middle of an evaluation, of a cool-down aside or of writing beside the steps ends the run soon, and nothing is lost.
Test(programs, a_signal_at_any_moment_is_obeyed_soon_and_costs_nothing) {
    static const char *const rows[] = {"--eval-every 2 --eval-tokens 8000 --valid corpus.txt", "--probe-decay 1000 --probe-share 0.7", "--save-every 1"};
    make_corpus();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *args = "corpus.txt " TINY " --schedule wsd --steps 16 --warmup 256 --decay 0.2";
        cr_assert(shell("rm -rf whole cut; $TRAIN %s %s -o whole 2>log", args, rows[i]) == 0);
        cr_expect(shell("for i in 1 2 3; do $TRAIN %s %s -o cut 2>log2 & pid=$!; for k in 1 2 3 4 5 6; do sleep 0.05; test -s cut/log.jsonl && break; done; sleep 0.0$i; "
                        "kill -TERM $pid; wait $pid; c=$?; test $c -eq 130 || test $c -eq 0 || exit 9; done; $TRAIN %s %s -o cut 2>>log2",
                        args, rows[i], args, rows[i]) == 0, "%s", rows[i]);
        cr_expect(same_learning("whole/log.jsonl", "cut/log.jsonl"), "%s", rows[i]);
        cr_expect(same_file("whole/model.gguf", "cut/model.gguf"), "%s", rows[i]);
    }
}

Test(programs, a_finished_run_is_drawn_once) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 12 --eval-sample 8 --peak 1e12 -o out 2>log && $TRAIN --watch out >said 2>err") == 0);
    cr_expect(shell("grep -q 'loss in nats per token' said && grep -q 'step 12, 3072 tokens, loss .*; complete' said && ! test -s err && ! grep -q '\033' said") == 0);
    cr_expect(shell("test $(grep -c '\"sample\":' out/log.jsonl) -ge 2 && grep -q 'peak_share' out/log.jsonl && grep -q 'layer_norms' out/log.jsonl") == 0);
    cr_expect(shell("grep -q 'Samples over time' out/report.html && grep -q 'Gradient norm by layer' out/report.html && grep -q 'Share of what' out/report.html") == 0);
    cr_expect(shell("$TRAIN --watch nowhere >said 2>err") == 1 && shell("grep -q 'nowhere/log.jsonl' err") == 0);
}

Test(programs, an_interrupt_saves_and_the_same_command_goes_on) {
    make_corpus();
    cr_expect(shell("$TRAIN corpus.txt " TINY " --steps 400000 -o cut 2>log2 & pid=$!; while ! test -s cut/log.jsonl; do sleep 0.05; done; "
                    "kill -TERM $pid; wait $pid; test $? -eq 130") == 0);
    cr_expect(shell("ls cut/ckpt-*.gguf >/dev/null") == 0, "an interrupt left no checkpoint");
    cr_expect(shell("grep -q 'goes on from here' log2") == 0);
}

Test(programs, flags_that_contradict_the_checkpoint_are_refused_with_both_values) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 4 -o out 2>log") == 0);
    cr_expect(shell("$TRAIN corpus.txt " TINY " --steps 4 --weight-decay 0.3 -o out 2>err") == 2);
    cr_expect(shell("grep -q 'weight-decay = 0.1' err && grep -q 'weight-decay = 0.3' err") == 0);
    cr_assert(shell("$STORIES --bytes 50000 -s 6 --out other.txt 2>/dev/null") == 0);
    cr_expect(shell("$TRAIN other.txt " TINY " --steps 4 -o out 2>err") == 1, "other data was taken without a word");
}

Test(programs, any_checkpoint_can_be_cooled_down) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --schedule wsd --steps 40 --save-every 10 --keep 9 -o trunk 2>log") == 0);
    cr_expect(shell("$TRAIN --decay-from trunk/ckpt-5120.gguf --decay-tokens 2048 -o branch 2>err") == 0);
    struct log_rows rows = {0};
    struct err err;
    char path[256];
    snprintf(path, sizeof path, "%s/branch/log.jsonl", scratch);
    cr_assert(log_read(path, &rows, &err));
    double last_lr = 1;
    for (size_t i = 0; i < rows.count; i++)
        if (!isnan(rows.row[i].lr)) {
            cr_expect(rows.row[i].tokens > 5120 && rows.row[i].lr <= last_lr);
            last_lr = rows.row[i].lr;
        }
    cr_expect(rows.count >= 8 && rows.row[0].tokens == 5376 && last_lr < 0.003, "last rate %g", last_lr);
    cr_expect(shell("test -s branch/model.gguf && test -s trunk/trunk/ckpt-*.gguf") == 0);
}

// A rung of the ladder is the run of that length, bit for bit, and the trunk is what it would have been without.
Test(programs, cool_downs_aside_are_whole_runs_and_leave_no_trace) {
    make_corpus();
    const char *line = "rm -rf %s; $TRAIN corpus.txt " TINY " --schedule %s --lr 0.01 --warmup 512 --decay 0.25 --tokens %d %s -o %s 2>log";
    static const char *const schedules_[] = {"wsd --decay-shape 1-sqrt", "power", "wsd --optimizer schedule-free --batch-rule ramp --batch-ramp 1000"};
    for (size_t i = 0; i < COUNT_OF(schedules_); i++) {
        cr_assert(shell(line, "plain", schedules_[i], 8192, "", "plain") == 0);
        cr_assert(shell(line, "ladder", schedules_[i], 8192, "--ladder 0.25 --ladder 0.5 --ladder 0.75:0.5 --probe-decay 1500", "ladder") == 0);
        cr_assert(shell(line, "half", schedules_[i], 4096, "", "half") == 0);
        cr_assert(shell(line, "most", schedules_[i], 6144, "--decay 0.5", "most") == 0);
        cr_expect(same_learning("plain/log.jsonl", "ladder/log.jsonl"), "%s", schedules_[i]);
        cr_expect(same_file("plain/model.gguf", "ladder/model.gguf"), "%s", schedules_[i]);
        if (!strstr(schedules_[i], "ramp")) cr_expect(same_file("half/model.gguf", "ladder/model-4096.gguf") && same_file("most/model.gguf", "ladder/model-6144.gguf"), "%s", schedules_[i]);
        cr_expect(shell("test $(grep -c cooled_loss ladder/log.jsonl) -ge 6 && ! test -e ladder/aside") == 0, "%s", schedules_[i]);
        cr_expect(shell("grep -q 'had it been cooled down' ladder/report.html") == 0);
    }
    cr_expect(shell("$TRAIN corpus.txt " TINY " --schedule wsd --decay 0.25 --tokens 8192 --ladder 0.9:0.1 -o late 2>err") == 2 && shell("grep -q 'leave the trunk at 0.81 ' err") == 0);
    cr_expect(shell("$TRAIN corpus.txt " TINY " --schedule wsd --tokens 8192 --ladder 0.5: -o late 2>err") == 2 && shell("grep -q 'ladder 0.5:: expected' err") == 0);
}

// ---- from a model to another ----------------------------------------------------------------------------------------

static struct log_rows rows_of(const char *log) {
    struct log_rows rows;
    struct err err = {""};
    char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, log);
    cr_assert(log_read(path, &rows, &err) && rows.count > 0, "%s", err.text);
    return rows;
}

// The value of val_loss, or of old text, in the first or the last row that has it.
static double evaluated(const char *log, bool old, bool last) {
    struct log_rows rows = rows_of(log);
    double found = NAN;
    for (size_t i = 0; i < rows.count && (last || isnan(found)); i++) {
        double x = old ? rows.row[i].val_loss_replay : rows.row[i].val_loss;
        if (isfinite(x)) found = x;
    }
    log_rows_free(&rows);
    return found;
}

// A rate too small to move a weight leaves the model as it was, bit for bit; what is measured before the first step is what
// the source measured after its last.
Test(programs, a_run_from_a_model_begins_where_that_one_ended) {
    make_corpus();
    make_other_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 30 --depth-rule none -o source 2>log") == 0);
    static const char *const files[] = {"ckpt-7680.gguf", "model.gguf", "model.gguf --optimizer lion"};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        cr_assert(shell("rm -rf still; $TRAIN other.txt --replay corpus.txt --replay-share 0 " FROM "%s --lr 1e-30 --steps 4 -o still 2>log", files[i]) == 0);
        cr_expect(same_file("source/model.gguf", "still/model.gguf"), "%s", files[i]);
        cr_expect(evaluated("still/log.jsonl", true, false) == evaluated("source/log.jsonl", false, true), "%s", files[i]);
        cr_expect(evaluated("still/log.jsonl", false, false) > evaluated("still/log.jsonl", true, false) + 0.2, "the other text is not other");
        cr_expect(shell("grep -q '^depth-rule = %s' still/config", i ? "sqrt" : "none") == 0);
    }
    cr_expect(shell("grep -q 'the old text' still/report.html && grep -q 'began with' still/report.html") == 0);
    // The source is needed no more once there is a checkpoint, and resuming needs no word of it.
    cr_assert(shell("$TRAIN other.txt --replay corpus.txt " FROM "ckpt-7680.gguf --steps 6 --save-every 2 --keep 9 -o next 2>log && cp -r next whole && "
                    "rm -r source next/model.gguf next/report.html next/ckpt-1536.gguf next/ckpt-1024.gguf && $TRAIN -o next 2>log") == 0);
    cr_expect(shell("grep -q '^resume: .*step 2' log") == 0 && same_file("whole/model.gguf", "next/model.gguf") && same_learning("whole/log.jsonl", "next/log.jsonl"));
    cr_expect(shell("rm next/report.html; $TRAIN other.txt --replay other.txt -o next 2>err") == 1 && shell("grep -q 'not the one the checkpoint was made with' err") == 0);
}

// Laws of the tokens seen go on where the source was: rates are those of one long run. With the state of the optimizer the
// level part of infinite needs no warmup; a third run counts both before it.
Test(programs, schedules_that_count_tokens_go_on_counting) {
    static const char *const rows[] = {"--schedule power --power-a 0.3 --lr 0.01", "--schedule infinite --cool 2048 --lr 0.01"};
    make_corpus();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *line = "$TRAIN corpus.txt %s --decay 0 --warmup -1 %s --tokens %d -o %s 2>log";
        cr_assert(shell("rm -rf source second third long") == 0);
        cr_assert(shell(line, TINY, rows[i], 3072, "source") == 0 && shell(line, TINY, rows[i], 9216, "long") == 0);
        cr_assert(shell(line, FROM "ckpt-3072.gguf", rows[i], 3072, "second") == 0);
        cr_assert(shell(line, "--seq 32 --batch-tokens 256 --samples 0 --from second/ckpt-3072.gguf", rows[i], 3072, "third") == 0);
        cr_expect(shell("grep -q 'a checkpoint at 6.14k tokens; the state of its optimizer is taken over' log") == 0);
        struct log_rows one = rows_of("long/log.jsonl"), parts[2] = {rows_of("second/log.jsonl"), rows_of("third/log.jsonl")};
        size_t compared = 0;
        for (int p = 0; p < 2; p++)
            for (size_t k = 0; k < parts[p].count; k++)
                for (size_t j = 0; j < one.count; j++) {
                    const struct log_row *a = &one.row[j], *b = &parts[p].row[k];
                    if (a->tokens != b->tokens + 3072 * (p + 1) || !isfinite(a->lr) || !isfinite(b->lr)) continue;
                    cr_expect_float_eq(a->lr, b->lr, 1e-12, "%s at %lld", rows[i], (long long)a->tokens);
                    compared++;
                }
        cr_expect(compared == 24, "%zu", compared);
        log_rows_free(&one), log_rows_free(&parts[0]), log_rows_free(&parts[1]);
    }
    // The rate is the same as before, so without a warmup the loss goes on falling, and the weights of Adam's first steps
    // would be ten times as far away.
    double jump[2];
    static const char *const from[] = {"ckpt-3072.gguf", "model.gguf --from-tokens 3072"};
    for (int k = 0; k < 2; k++) {
        cr_assert(shell("rm -rf second; $TRAIN corpus.txt " FROM "%s %s --decay 0 --warmup -1 --steps 1 -o second 2>log", from[k], rows[1]) == 0);
        jump[k] = evaluated("second/log.jsonl", false, true) - evaluated("second/log.jsonl", false, false);
    }
    cr_expect(fabs(jump[0]) < 0.5 * fabs(jump[1]), "with the state %g, without %g", jump[0], jump[1]);
}

// Old text is forgotten while new text is learned, less so the more of it is replayed.
Test(programs, replay_holds_up_forgetting) {
    static const char *const shares[] = {"0", "0.05", "0.3"};
    double old[3], new[3];
    make_corpus();
    make_other_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 200 -t 1 -o source 2>log") == 0);
    for (int i = 0; i < 3; i++) {
        cr_assert(shell("rm -rf next; $TRAIN other.txt --replay corpus.txt --replay-share %s " FROM "ckpt-51200.gguf --from-tokens 0 --steps 120 -t 1 -o next 2>log", shares[i]) == 0);
        old[i] = evaluated("next/log.jsonl", true, true) - evaluated("next/log.jsonl", true, false);
        new[i] = evaluated("next/log.jsonl", false, true) - evaluated("next/log.jsonl", false, false);
        cr_expect(new[i] < -1, "nothing was learned: %g", new[i]);
    }
    cr_expect(old[0] > 1 && old[1] < 0.8 * old[0] && old[2] < 0.5 * old[0], "the old text's loss rises by %g, %g and %g", old[0], old[1], old[2]);
}

// Files of others: quantized weights, and a Hugging Face folder of another family. Their first loss is what ./run says of them.
Test(programs, models_of_other_makers_are_trained_on) {
    make_corpus();
    cr_assert(shell("head -c 30000 corpus.txt | grep -v endoftext >plain.txt; $RUN -m '%s/data/stories-1m.gguf' --perplexity plain.txt -c 64 --stride 64 --json >score 2>err", origin) == 0);
    cr_assert(shell("$TRAIN corpus.txt --valid plain.txt --eval-tokens 1m --eval-every 99 --from '%s/data/stories-1m.gguf' --seq 64 --batch-tokens 512 --steps 6 --samples 0 -o next 2>err", origin) == 0);
    struct text score = read_file("score");
    const char *at = strstr(score.data, "nats_per_token\":");
    const double theirs = at ? strtod(at + strlen("nats_per_token\":"), NULL) : NAN, first = evaluated("next/log.jsonl", false, false);
    // Here the first token, the end mark and the last part of a window are scored too: some 70 of 7000.
    cr_expect(fabs(first / theirs - 1) < 3e-3, "%g here, %g there", first, theirs);
    cr_expect(evaluated("next/log.jsonl", false, true) < first - 0.01, "the loss falls from the first step on");
    cr_expect(shell("grep -q '22 of 29 tensors of .* are quantized, token_embd.weight as Q8_0' err && grep -q 'power goes on from 18.9M, 20 a parameter' err") == 0);
    text_free(&score);
    cr_assert(shell("$TRAIN corpus.txt " TINY " --family llama --steps 20 -o source 2>log && $RUN -m source/model.gguf --export hf -o folder 2>err") == 0);
    cr_assert(shell("$TRAIN corpus.txt --seq 32 --batch-tokens 256 --samples 0 --from folder --steps 4 -o again 2>log") == 0);
    cr_expect(evaluated("again/log.jsonl", false, false) == evaluated("source/log.jsonl", false, true));
    cr_expect(shell("$RUN -m again/model.gguf -p 'Once upon' -n 5 >said 2>err") == 0);
}

Test(programs, what_contradicts_the_model_is_refused_by_name) {
    static const char *const rows[][2] = {
        {FROM "model.gguf --width 64", "--width 64: source/model.gguf has 32"},
        {FROM "model.gguf --layers 3", "--layers 3: source/model.gguf has 2"},
        {FROM "model.gguf --experts 4", "--experts 4: source/model.gguf has 0"},
        {FROM "model.gguf --tokenizer byte", "--tokenizer byte: the weights of source/model.gguf belong to its own tokenizer"},
        {FROM "model.gguf --family llama", "--family llama: source/model.gguf is a granite model"},
        {FROM "model.gguf --size 1M", "--size 1M: the size is that of source/model.gguf"},
        {FROM "model.gguf --no-tied", "--no-tied: the head of source/model.gguf is the embedding"},
        {FROM "model.gguf --init-std 0.1", "--init-std: nothing is made anew"},
        {FROM "model.gguf --embedding-scale 2", "--embedding-scale 2: source/model.gguf has 12"},
        {FROM "model.gguf --replay-share 0.1", "--replay-share is a share of --replay, which is missing"},
        {FROM "model.gguf --decay-from source/ckpt-512.gguf", "--from begins a new run and --decay-from ends an old one"},
        {FROM "model.gguf --tune", "leave out --from"},
        {FROM "model.gguf --replay corpus.txt --replay-share 1", "0.99"},
        {FROM "nothing.gguf", "source/nothing.gguf"},
        {FROM "../free/ckpt-512.gguf", "at which schedule-free took gradients, not their mean"},
    };
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 2 -o source 2>log && $TRAIN corpus.txt " TINY " --steps 2 --optimizer schedule-free --schedule constant -o free 2>log") == 0);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int code = shell("$TRAIN corpus.txt %s --steps 1 -o next 2>err", rows[i][0]);
        cr_expect(code == 1 || code == 2, "%s ended with %d", rows[i][0], code);
        struct text err = read_file("err");
        cr_expect(strstr(err.data, rows[i][1]) && !shell("! test -e next/model.gguf"), "%s: %s", rows[i][0], err.data);
        text_free(&err);
    }
    cr_expect(shell("$TRAIN corpus.txt --from '%s/tests/golden/family_gpt2.gguf' --steps 1 -o next 2>err", origin) == 1);
    cr_expect(shell("grep -q 'gpt2 model runs but does not train' err") == 0);
    // What says the same is no contradiction.
    cr_expect(shell("$TRAIN corpus.txt " FROM "model.gguf --width 32 --family granite --steps 1 -o next 2>err && "
                    "$TRAIN --config next/config -o twin 2>err") == 0 && same_file("next/model.gguf", "twin/model.gguf"));
}

Test(programs, a_full_disk_loses_nothing_and_says_so) {
    make_corpus();
    // A file size limit stands in for the full disk: writes beyond it fail like ENOSPC does.
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 6 --save-every 2 -o out 2>log && cp out/ckpt-1536.gguf good") == 0);
    cr_expect(shell("trap '' XFSZ; ulimit -f 40; $TRAIN corpus.txt " TINY " --steps 12 --save-every 2 --override -o out 2>err; true") == 0);
    cr_expect(shell("grep -q 'not saved\\|could not be written' err") == 0, "a failed save was not told");
    cr_expect(same_file("out/ckpt-1536.gguf", "good"), "the old checkpoint was touched");
    cr_expect(shell("ls out/*.tmp-* 2>/dev/null | grep -q .") != 0, "a temporary was left behind");
}

Test(programs, exit_codes_and_streams_are_as_documented) {
    cr_expect(shell("$RUN --help >out 2>err && test -s out && ! test -s err") == 0);
    cr_expect(shell("$TRAIN --help >out 2>err && test -s out && ! test -s err") == 0);
    cr_expect(shell("$RUN --list >out && grep -q granite out && grep -q min-p out") == 0);
    cr_expect(shell("$TRAIN --list >out && grep -q power out && grep -q 1-sqrt out") == 0);
    cr_expect(shell("$RUN --tmep 1 >out 2>err") == 2);
    cr_expect(shell("grep -q -- --temp err && ! test -s out") == 0, "no suggestion for a misspelt flag");
    cr_expect(shell("$RUN -m nothing.gguf >out 2>err") == 1);
    cr_expect(shell("$RUN --profile -p x >out 2>err") == 2 && shell("grep -q -- '--bench' err") == 0);
    cr_expect(shell("$RUN --temp -1 2>err") == 2 && shell("$RUN --top-p 1.5 2>err") == 2 && shell("$RUN -n 12x 2>err") == 2);
    cr_expect(shell("$RUN -m '%s' 2>err", scratch) == 1, "a folder is no model file");
    cr_expect(shell(": >empty; $RUN -m empty 2>err") == 1);
    cr_expect(shell("mkfifo pipe; timeout 5 $RUN -m pipe 2>err") == 1, "a pipe must not block");
    cr_expect(shell("timeout 5 $RUN -m /dev/zero 2>err") == 1);
    cr_expect(shell("printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:00\\nsize 5\\n' >lfs; $RUN -m lfs 2>err; grep -qi lfs err") == 0);
    cr_expect(shell("printf '<!DOCTYPE html><html></html>' >page; $RUN -m page 2>err; grep -qi 'web page' err") == 0);
}

Test(programs, output_is_text_only_and_json_is_json) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 5 -o out 2>log") == 0);
    cr_assert(shell("$RUN -m out/model.gguf -p Hello -n 10 -s 1 --temp 0 >text 2>err") == 0);
    cr_expect(shell("head -c 5 text | grep -q Hello && ! grep -q tokens text && grep -q 'seed 1' err") == 0);
    cr_assert(shell("$RUN -m out/model.gguf -p Hello -n 10 -s 1 --temp 0 --logprobs 3 >lines 2>err") == 0);
    struct text lines = read_file("lines");
    int objects = 0;
    for (char *p = lines.data, *end; *p; p = end + 1) {
        struct json j;
        struct err err;
        end = strchr(p, '\n');
        cr_assert(end != NULL);
        json_open(&j, p, (size_t)(end - p));
        cr_expect(json_skip(&j) && json_done(&j, &err));
        objects++;
    }
    cr_expect(objects >= 11, "%d objects", objects);
    text_free(&lines);
    cr_expect(shell("$RUN -m out/model.gguf -p 'a <|endoftext|> b' --tokenize >ids 2>err && ! grep -qw 299 ids") != 0 ||
              shell("cut -d' ' -f2- ids | grep -qw 299") != 0, "user text became a control token");
    cr_expect(shell("$RUN -m out/model.gguf --check >report 2>err && grep -q fine report") == 0);
    cr_expect(shell("$RUN -m out/model.gguf --perplexity corpus.txt -c 64 --chunks 3 >score 2>err && grep -q perplexity score") == 0);
    cr_expect(shell("$RUN -m out/model.gguf -p Hello -n 3 --stop zzz 2>err >text && $RUN -m out/model.gguf -n 0 2>err") == 0);
}

// ---- hostile files --------------------------------------------------------------------------------------------------

// Every damaged file is either refused with one sentence and exit code 1, or (where the damage does not show, as in a
// weight) runs to an end. Variants are spread evenly over all that hostile.c can make of the file.
static void run_hostile(const char *model, const char *extra, size_t wanted, uint64_t seed) {
    struct text good = read_file(model);
    struct hostile h;
    hostile_open(&h, good.data, good.len, seed, 300);
    size_t count = hostile_count(&h), n = wanted < count ? wanted : count, refused = 0;
    for (size_t i = 0; i < n; i++) {
        struct text bad = {0};
        char path[128], label[160];
        snprintf(path, sizeof path, "%s/bad", scratch);
        hostile_make(&h, i * count / n, &bad, label);
        FILE *f = fopen(path, "wb");
        cr_assert(f && fwrite(bad.data, 1, bad.len, f) == bad.len && fclose(f) == 0);
        int code = shell("ulimit -t 20; $RUN -m bad %s -p Hi -n 3 -c 32 -t 1 >said 2>err", extra);
        struct text said = read_file("err");
        cr_expect(code == 0 || code == 1, "%s (seed %llu) ended with %d: %.300s", label, (unsigned long long)seed, code,
                  said.len ? said.data : "");
        if (code == 1) cr_expect(said.len > 25 && strstr(said.data, "run: ") != NULL, "%s was refused without a sentence", label);
        refused += code == 1;
        text_free(&said);
        text_free(&bad);
    }
    hostile_close(&h);
    text_free(&good);
    cr_expect(n >= 500 && refused > n / 4, "%zu of %zu refused", refused, n);
}

Test(programs, hostile_gguf_files_end_in_a_sentence) {
    make_corpus();
    cr_assert(shell("$TRAIN corpus.txt " TINY " --steps 1 -o out 2>log") == 0);
    run_hostile("out/model.gguf", "", 520, 1);
}

static void put_int(FILE *f, int32_t x) { cr_assert(fwrite(&x, sizeof x, 1, f) == 1); }

// A small random llama2.c file: 257 tokens, so that --tokenizer byte fits.
static void make_llama2c(const char *name) {
    enum { dim = 32, hidden = 64, layers = 2, heads = 4, kv = 2, vocab = 257, seq = 64 };
    char path[128];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL);
    const int32_t head[] = {dim, hidden, layers, heads, kv, vocab, seq};
    for (size_t i = 0; i < COUNT_OF(head); i++) put_int(f, head[i]);
    const int64_t kv_dim = dim / heads * kv;
    const int64_t floats = vocab * dim + layers * (2 * dim + 2 * dim * dim + 2 * kv_dim * dim + 3 * dim * hidden) + dim + seq * (dim / heads);
    for (int64_t i = 0; i < floats; i++) {
        float x = (float)(0.1 * rng_normal(3, 0, (uint64_t)i));
        cr_assert(fwrite(&x, sizeof x, 1, f) == 1);
    }
    cr_assert(fclose(f) == 0);
}

Test(programs, hostile_llama2c_files_end_in_a_sentence) {
    make_llama2c("good.bin");
    cr_assert(shell("$RUN -m good.bin --tokenizer byte -p Hi -n 5 >said 2>err") == 0);
    run_hostile("good.bin", "--tokenizer byte", 500, 2);
}

// llama2.c's own test: the greedy text of its 260K model. The model is not part of this project.
Test(programs, stories260K_says_the_published_text) {
    static const char published[] =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, "
        "red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was "
        "sad and didn't know what to do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and "
        "didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her mom, so she";
    const char *model = getenv("LEHR_STORIES260K");
    if (!model) cr_skip_test("LEHR_STORIES260K does not name stories260K.bin (with tok512.bin beside it)");
    const char *levels[] = {"", "--cpu plain", "--cpu avx2", "-t 1", "-t 3 -ub 1"};
    for (size_t i = 0; i < COUNT_OF(levels); i++) {
        cr_assert(shell("$RUN -m '%s' --tokenizer \"$(dirname '%s')/tok512.bin\" --temp 0 -n 200 %s >said 2>err", model, model, levels[i]) == 0);
        struct text said = read_file("said");
        cr_expect(strncmp(said.data, published, strlen(published)) == 0, "with %s: %s", levels[i], said.data);
        text_free(&said);
    }
}

// Peak resident size of a command, by the kernel's account of finished children.
static double child_peak_bytes(const char *command) {
    struct rusage before, after;
    getrusage(RUSAGE_CHILDREN, &before);
    cr_assert(shell("%s", command) == 0);
    getrusage(RUSAGE_CHILDREN, &after);
    cr_assert(after.ru_maxrss > before.ru_maxrss, "something bigger ran before");
    return (double)after.ru_maxrss * 1024;
}

Test(programs, plan_predicts_the_memory_of_the_run) {
#if defined(__SANITIZE_ADDRESS__)
    cr_skip_test("a sanitizer's own memory is not the program's");
#endif
    const char *run = "$TRAIN corpus.txt --size 3M --seq 256 --batch-tokens 4096 --steps 3 --tokenizer bpe:1000 --samples 0 -t 2";
    char command[512];
    cr_assert(shell("$STORIES --bytes 3000000 -s 5 --out corpus.txt 2>err") == 0);
    cr_assert(shell("%s --plan -o planned >plan 2>err", run) == 0);
    struct text plan = read_file("plan");
    double promised = 0;
    char unit[8] = "";
    const char *at = strstr(plan.data, "memory");
    cr_assert(at && sscanf(at, "memory %lf %7s", &promised, unit) == 2, "%s", plan.data);
    promised *= strcmp(unit, "GB") == 0 ? 1e9 : 1e6;
    snprintf(command, sizeof command, "%s -o out 2>err", run);
    double real = child_peak_bytes(command);
    cr_expect(fabs(promised / real - 1) < 0.05, "promised %.1f MB, took %.1f MB", promised * 1e-6, real * 1e-6);
    text_free(&plan);
}

// Peak memory falls by what the plan says, the model stays; what cannot be is refused before anything is made.
Test(programs, less_memory_is_less_memory_and_the_same_model) {
    const char *run = "$TRAIN corpus.txt --size 1M --width 64 --layers 24 --heads 4 --kv-heads 4 --ffn 192 --seq 1024 --batch-tokens 1024"
                      " --tokenizer bpe:300 --samples 0 --valid-share 0 --steps 2 -t 1 %s 2>%s";
    make_corpus();
    char command[512];
    cr_assert(shell(run, "--memory 1m -o refused", "err") == 1);
    cr_expect(shell("grep -q '1024 tokens take .* 1.0 MB are allowed: allow more' err && ! test -e refused/model.gguf") == 0);
#if !defined(__SANITIZE_ADDRESS__)
    snprintf(command, sizeof command, run, "--memory 20m -o small", "log");
    double little = child_peak_bytes(command);
    cr_expect(shell("grep -q 'computed again .* feed-forward of 23 of 24 layers, attention of' log") == 0);
    snprintf(command, sizeof command, run, "-o large", "log");
    double much = child_peak_bytes(command);
    cr_expect(much - little > 55e6, "%.1f MB with all kept, %.1f MB without", much * 1e-6, little * 1e-6); // 81 and 20 MB by --plan
#else
    snprintf(command, sizeof command, run, "--memory 20m -o small", "log");
    cr_assert(shell("%s", command) == 0 && shell(run, "-o large", "log") == 0);
#endif
    cr_expect(same_file("small/model.gguf", "large/model.gguf"));
}

// ---- measuring ------------------------------------------------------------------------------------------------------

// per_second of the row of that name and thread count in what --ceiling --json wrote; 0 when there is none.
static double ceiling_of(const char *name, int threads) {
    char start[128];
    double found = 0;
    struct text said = read_file("ceiling");
    snprintf(start, sizeof start, "{\"name\":\"%s\",\"threads\":%d,\"per_second\":", name, threads);
    const char *at = strstr(said.data, start);
    if (at) found = strtod(at + strlen(start), NULL);
    text_free(&said);
    return found;
}

Test(programs, ceilings_are_numbers_in_a_sane_order) {
    cr_assert(shell("$RUN --ceiling --json -t 2 >ceiling 2>err") == 0);
    struct text said = read_file("ceiling");
    for (const char *line = said.data; *line; line = strchr(line, '\n') + 1) {
        const char *at = strstr(line, "\"per_second\":");
        double x = at ? strtod(at + strlen("\"per_second\":"), NULL) : 0;
        cr_expect(isfinite(x) && x > 1e6 && x < 1e17, "%.80s", line);
    }
    text_free(&said);
    for (int t = 1; t <= 2; t++) {
        cr_expect(ceiling_of("memory read", t) > 0 && ceiling_of("f32 plain", t) > 0);
        // Each unit is at least twice the one before it by its width; half of that is left to the weather.
        const char *order[] = {"f32 avx2", "f32 avx512", "int8 vnni", "int8 amx"};
        for (size_t i = 1; i < COUNT_OF(order); i++)
            if (ceiling_of(order[i], t) > 0) cr_expect(ceiling_of(order[i], t) > ceiling_of(order[i - 1], t), "%s", order[i]);
        if (ceiling_of("bf16 amx", t) > 0) cr_expect(ceiling_of("bf16 amx", t) > ceiling_of("f32 avx512", t));
    }
}

Test(programs, a_bench_tells_its_share_and_an_unknown_peer_is_one_sentence) {
    cr_assert(shell("$RUN -m '%s/data/stories-1m.gguf' --bench --bench-prompt 8 --bench-new 4 --repeats 1 -t 1 >said 2>err", origin) == 0);
    struct text said = read_file("said");
    cr_expect(strstr(said.data, "% of memory read (") && strstr(said.data, "prompt of 8: "), "%s", said.data);
    text_free(&said);
    cr_expect(shell("MODELS='%s/data/stories-1m.gguf' PEERS=nowhere/llama-bench:it sh '%s/tests/bench/peers.sh' >said 2>err", origin, origin) == 2);
    struct text err = read_file("err");
    cr_expect(strstr(err.data, "there is no program nowhere/llama-bench") && strchr(err.data, '\n') == err.data + err.len - 1, "%s", err.data);
    text_free(&err);
}

// A peer by the options and the output of llama-bench: its prompt is read at 200, 300 and 100 tokens a second.
Test(programs, peers_are_run_by_turns_and_a_peer_that_crashes_is_told) {
    cr_assert(shell("printf '#!/bin/sh\nfor g in 0 4; do printf \"    \\\"n_gen\\\": %%%%d,\\n    \\\"samples_ts\\\": [ 200, 300.5, 100 ]\\n\" $g; done\n' >peer;"
                    "printf '#!/bin/sh\nkill -ILL $$\n' >broken; chmod +x peer broken") == 0);
    const char *call = "MODELS='%s/data/stories-1m.gguf' RUN=$RUN CHART='%s/" PROGRAMS "/chart' PEERS='./peer:other%s' PAIRS=%d P=8 N=4 DEPTH=%d THREADS=1 "
                       "CPU=%s OUT=. sh '%s/tests/bench/peers.sh' >said 2>err";
    cr_assert(shell(call, origin, origin, "", 1, 16, "plain", origin) == 0);
    cr_assert(shell(call, origin, origin, " ./broken", 2, 0, "", origin) == 0);
    struct text said = read_file("said"), err = read_file("err"), csv = read_file("results.csv");
    cr_expect(strstr(said.data, "times other") && strstr(said.data, "2 pairs"), "%s", said.data);
    cr_expect(strstr(err.data, "broken failed on stories-1m.gguf, left out"), "%s", err.data);
    cr_expect(strstr(csv.data, "stories-1m.gguf,prompt,8,1,2,other,200,-,0,best,"), "%s", csv.data);
    cr_expect(strstr(csv.data, "stories-1m.gguf,generation,4,1,1,other,200,-,16,plain,"), "rows of the call before are kept: %s", csv.data);
    cr_expect(shell("grep -q '^<svg.*' stories-1m.gguf-prompt.svg && grep -q 'ours beside other' stories-1m.gguf-prompt.svg") == 0);
    text_free(&said), text_free(&err), text_free(&csv);
}

Test(programs, growth_is_told_with_its_floor_and_drawn) {
    cr_assert(shell("RUN=$RUN MAKER='%s/" PROGRAMS "/random_model' CHART='%s/" PROGRAMS "/chart' MIX=Q8_0 SHAPE=64,2,2,1,32,96,512 TABLES='context rows' "
                    "DEPTHS='0 8' ROWS='1 4' THREADS=1 REPEATS=1 OUT=. sh '%s/tests/bench/growth.sh' >said 2>err", origin, origin, origin) == 0);
    struct text said = read_file("said"), csv = read_file("growth.csv");
    cr_expect(strstr(said.data, "floor") && strstr(said.data, "rows: Q8_0"), "%s", said.data);
    cr_expect(strstr(csv.data, "\ncontext,8,prompt,") && strstr(csv.data, "\nrows,4,generation,"), "%s", csv.data);
    cr_expect(shell("test -s growth-rows-generation.svg && test -s growth-context-prompt.svg") == 0);
    text_free(&said), text_free(&csv);
}

// ---- benches that train -------------------------------------------------------------------------------------------

#define BENCH "TRAIN=$TRAIN STORIES=$STORIES CHART='%s/" PROGRAMS "/chart' JOBS=2 OUT=. %s sh '%s/tests/bench/%s.sh' >said 2>err"
static int bench(const char *script, const char *words) { return shell(BENCH, origin, words, origin, script); }

#define SWEEP "SCHEDULES='wsd power' WIDTHS=64 BATCHES=256 TOKENS=2048 LAYERS=1 SEQ=32 TOKENIZER=bpe:300 STORY_BYTES=50000 RATES='0.01 0.02' AMPLITUDES=8"
Test(programs, a_sweep_goes_on_where_it_ended) {
    cr_assert(bench("sweep", SWEEP) == 0 && shell("sort sweep-mup.csv >all && test $(wc -l <all) = 4 && test -s sweep-mup-wsd.svg && grep -v ',0.02,' sweep-mup.csv >less && mv less sweep-mup.csv") == 0);
    cr_assert(bench("sweep", SWEEP) == 0 && shell("grep -q '^1 runs to do' said && sort sweep-mup.csv | cmp - all") == 0, "the run that was missing, with the same loss");
}

// The table is worked out again from the rows by a few lines of their own.
#define RACE "SMALL=1 TOKENS=5120 BATCH=256 SEQ=32 STORY_BYTES=50000 VALID_BYTES=2000 FACTORS='0.5 2' SUBMISSIONS='muon+wsd schedule-free+constant' NAME=t"
Test(programs, tokens_to_a_target_are_told_as_the_rows_say) {
    cr_assert(bench("target", "PLAN=1 " RACE) == 0 && shell("grep -q '^15 runs to do' said && test $(wc -l <t.csv) = 1") == 0);
    cr_assert(bench("target", RACE) == 0, "%s", read_file("err").data);
    cr_expect(shell("grep ',adamw+cosine,judge,.*,5120,[^,]*,5120,' t.csv | cut -d, -f9 | sort -n | sed -n 2p >target;"
                    "grep -q \"target $(printf %%.4f $(cat target));\" t.md && test $(grep -c '^| .*+' t.md) = 3") == 0, "the median of the reference");
    cr_expect(shell("for s in muon+wsd schedule-free+constant; do awk -F, -v s=$s -v t=$(cat target) '"
                    "$2 == s && $3 == \"judge\" && $8 >= 2560 && ($8 %% 2560 == 0 || $8 == 4096) { n[$5] = n[$5]; if ($9 <= t && !n[$5]) n[$5] = 100 * $8 / 5120 }"
                    "END { for (i in n) print n[i] ? n[i] : 1e9 }' t.csv | sort -n | sed -n 2p |"
                    "{ read -r n; [ $n != 1000000000 ] || n='not reached'; grep -q \"^| $s | \\(at most \\)\\?$n\" t.md; } || exit 1; done") == 0);
    cr_expect(shell("test -s t.svg && test -s t-rates.svg && grep -q target t.svg") == 0);
    // Nothing is run twice; what is missing comes back as it was.
    cr_assert(shell("cp t.md md; cut -d, -f1-9 t.csv | sort >all; cp t.csv once") == 0 && bench("target", RACE) == 0);
    cr_expect(shell("grep -q '^0 runs to do' said && cmp t.csv once && cmp t.md md") == 0);
    cr_assert(shell("grep -v 'adamw+cosine,judge,.*,3,5120,\\|wsd,tune,.*' once >t.csv") == 0 && bench("target", RACE) == 0);
    cr_expect(shell("cut -d, -f1-9 t.csv | sort | cmp - all") == 0);
    cr_expect(bench("target", "SHARES=0.45 " RACE) == 2 && bench("target", "SUBMISSIONS=adamx+wsd SMALL=1 NAME=other") == 2);
    cr_expect(shell("test $(wc -l <err) = 1 && grep -q adamx err") == 0);
}

// A ./run that tells uses whose divergence is known: (3/4, 1/4) against (1/4, 3/4) in one layer, the same in the other.
Test(programs, experts_of_two_texts_are_compared_run_by_run) {
    make_corpus();
    cr_assert(shell("printf '#!/bin/sh\ncase $4 in */code) n=3,1 ;; *) n=1,3 ;; esac\necho \"{\\\"nats_per_token\\\":2.5,\\\"experts\\\":[[$n],[8,0]]}\"\n' >fake; chmod +x fake") == 0);
    const char *call = "CODE=corpus.txt PROSE=corpus.txt CODE_VALID=corpus.txt PROSE_VALID=corpus.txt RUN=./fake CHART='%s/" PROGRAMS "/chart' ARMS='global none' "
                       "COEFS='0.01 0.1' SEEDS=1 TOKENS=256 BATCH=64 SEQ=32 TOKENIZER=byte MODEL='--width 32 --layers 1 --heads 1 --ffn 32 --experts 2 --experts-used 1' "
                       "JOBS=%d OUT=. TRAIN=$TRAIN sh '%s/tests/bench/experts.sh' >said 2>err";
    cr_assert(shell(call, origin, 2, origin) == 0);
    struct text csv = read_file("experts.csv"), said = read_file("said");
    cr_expect(shell("test $(grep -c ',2.5,2.5,1.50000,0.50000,0.094361,1$' experts.csv) = 3") == 0, "%s", csv.data);
    cr_expect(strstr(said.data, "3 runs to do") && strstr(said.data, " against none,0: loss ") && strstr(said.data, "apart +0.0000 bits"), "%s", said.data);
    cr_expect(shell("test -s experts-loss.svg && test -s experts-apart.svg") == 0);
    cr_expect(shell(call, origin, 1, origin) == 0 && shell("grep -q '^0 runs to do' said && test $(wc -l <experts.csv) = 4") == 0, "what is there is run again");
    text_free(&csv), text_free(&said);
    cr_expect(shell("CODE=nothing sh '%s/tests/bench/experts.sh' 2>err", origin) == 2 && shell("grep -q \"no file: 'nothing'\" err") == 0);
}
