// test_spec_programs.c: ./run with guesses, and with drafts that are missing, broken or of no use: the text stays, the reason is one line.
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(spec_programs, .init = make_scratch, .fini = drop_scratch, .timeout = 120);

static int lines_with(const char *text, const char *what) {
    int n = 0;
    for (const char *at = strstr(text, what); at; at = strstr(at + 1, what)) n++;
    return n;
}

Test(spec_programs, a_draft_that_is_of_no_use_costs_one_line_and_no_byte) {
    static const struct {
        const char *make, *options, *why;
    } cases[] = {
        {"true", "--draft nowhere.gguf", "nowhere.gguf"},
        {"true", "--spec model", "needs a draft model"},
        {"head -c 200000 good.gguf >short.gguf", "--draft short.gguf", "short.gguf"},
        {"echo no model at all >text.gguf", "--draft text.gguf", "text.gguf"},
        {"cp good.gguf nan.gguf; size=$(stat -c %%s nan.gguf); head -c 300000 /dev/zero | tr '\\0' '\\377' | dd of=nan.gguf bs=1 seek=$((size - 600000)) conv=notrunc 2>/dev/null",
         "--draft nan.gguf --spec model --no-spec-adapt", "not a number"},
        {"awk 'BEGIN { srand(1); for (i = 0; i < 9000; i++) { w = \"\"; for (k = 0; k < 6; k++) w = w sprintf(\"%%c\", 65 + int(rand() * 26)); print w } }' >codes.txt; "
         "$TRAIN codes.txt --tokenizer bpe:1500 --width 64 --layers 1 --seq 16 --batch-tokens 32 --steps 2 --samples 0 -o codes 2>train.err",
         "--draft codes/model.gguf", "at least 50% of one are needed"},
        {"true", "--draft good.gguf --draft-ctx 8 --spec model --no-spec-adapt", "too small to guess with"},
    };
    cr_assert(shell("cp '%s/data/stories-1m.gguf' good.gguf", origin) == 0);
    cr_assert(shell("$RUN -m good.gguf -p 'Once there was' -n 40 --temp 0.9 -s 3 --spec none >plain 2>err") == 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char make[600];
        snprintf(make, sizeof make, cases[i].make, "");
        cr_assert(shell("%s", make) == 0, "%s", make);
        cr_expect(shell("$RUN -m good.gguf -p 'Once there was' -n 40 --temp 0.9 -s 3 %s >said 2>err", cases[i].options) == 0, "%s", cases[i].options);
        cr_expect(shell("cmp -s plain said") == 0, "%s changes the text", cases[i].options);
        struct text err = read_file("err");
        cr_expect(strstr(err.data, cases[i].why) && lines_with(err.data, "note: ") == 1, "%s: %s", cases[i].options, err.data);
        text_free(&err);
    }
#if !defined(__SANITIZE_ADDRESS__) // it takes terabytes of addresses for itself
    cr_expect(shell("(ulimit -v 700000; $RUN -t 1 -m good.gguf -p 'Once there was' -n 40 --temp 0.9 -s 3 --draft good.gguf --draft-ctx 4000000 >said 2>err) && cmp -s plain said && "
                    "test $(grep -c '^note: ' err) = 1 && grep -q '^note: the draft good.gguf is not used, .*no memory' err") == 0);
#endif
}

Test(spec_programs, a_draft_beside_the_model_is_found_and_told) {
    cr_assert(shell("cp '%s/data/stories-1m.gguf' tale.gguf; cp tale.gguf tale.draft.gguf", origin) == 0);
    cr_assert(shell("$RUN -m tale.gguf -p 'Once there was' -n 40 --temp 0 --spec none >plain 2>err && ! grep -q guesses err") == 0);
    for (int i = 0; i < 4; i++) {
        static const char *const kinds[] = {"auto", "model", "staged", "tree"};
        cr_expect(shell("$RUN -m tale.gguf -p 'Once there was' -n 40 --temp 0 --spec %s --no-spec-adapt >said 2>err && cmp -s plain said && grep -q '^draft: tale.draft.gguf' err && grep -q '^guesses: ' err",
                        kinds[i]) == 0, "%s", kinds[i]);
    }
    cr_expect(shell("$RUN -m tale.gguf -p 'Once' -n 20 --json --no-spec-adapt 2>err | tail -1 | grep -q '\"speculation\":{\"speedup\":.*\"held_by_place\":\\['") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p 'Once' -n 60 --temp 1.2 -s 4 --ignore-eos --spec-check --spec model --no-spec-adapt >said 2>err && grep -q '^the same [0-9]* bytes, 60 tokens' said") == 0);
}

Test(spec_programs, the_first_layers_guess_where_they_are_named_or_the_file_names_them) {
    static const char *const texts[] = {"-n 40 --temp 0", "-n 60 --temp 1 -s 5 --ignore-eos", "-n 40 --temp 0.8 -s 2 --repeat-penalty 1.3 -t 2"};
    cr_assert(shell("cp '%s/data/stories-1m.gguf' tale.gguf", origin) == 0);
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (int layer = 1; layer < 3; layer++) {
            cr_assert(shell("$RUN -m tale.gguf -p 'Once there was' --spec none %s >plain 2>err", texts[i]) == 0);
            cr_expect(shell("$RUN -m tale.gguf -p 'Once there was' --spec exit --exit-layer %d --no-spec-adapt %s >said 2>err && cmp -s plain said", layer, texts[i]) == 0, "%s", texts[i]);
            cr_expect(shell("grep -q '^draft: the first %d of 3 layers of tale.gguf, ' err && grep -q '^guesses: .* exit, ' err && ! grep -q '^note' err", layer) == 0, "%s", texts[i]);
        }
    cr_expect(shell("$RUN -m tale.gguf -p 'Once' -n 60 --temp 1.2 -s 4 --ignore-eos --spec-check --exit-layer 2 --no-spec-adapt >said 2>err && grep -q '^the same [0-9]* bytes, 60 tokens' said && grep -q 'ngram, [0-9]* exit' err") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p 'Once' -n 20 --exit-layer 1 --spec exit --spec-accept rejection --temp 1 >said 2>err && ! grep -q '^note' err") == 0);
    // Nowhere to leave it, or not before its end: one line, and the text is the same.
    static const struct {
        const char *options, *why;
    } cases[] = {{"--spec exit", "has not learned to be left early"}, {"--spec exit --exit-layer 3", "fewer than the 3 layers"},
                 {"--exit-layer 9", "fewer than the 3 layers"}, {"--exit-layer 1 --draft tale.gguf", "is not used, as there is the draft tale.gguf"},
                 {"--spec exit --exit-layer 1 --draft-ctx 8 --no-spec-adapt", "too small to guess with"}};
    cr_assert(shell("$RUN -m tale.gguf -p 'Once there was' --spec none %s >plain 2>err", texts[0]) == 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        cr_expect(shell("$RUN -m tale.gguf -p 'Once there was' %s %s >said 2>err && cmp -s plain said", texts[0], cases[i].options) == 0, "%s", cases[i].options);
        struct text err = read_file("err");
        cr_expect(strstr(err.data, cases[i].why) && lines_with(err.data, "note: ") == 1, "%s: %s", cases[i].options, err.data);
        text_free(&err);
    }
    cr_expect(shell("$RUN -m tale.gguf -p a --spec ngram --exit-layer 1 2>err") == 2 && shell("grep -q 'goes with --spec exit or auto' err") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec exit --exit-layer 1 --draft tale.gguf 2>err") == 2 && shell("grep -q 'leave --draft out' err") == 0);
    cr_expect(shell("$RUN --list 2>/dev/null | grep -q '^  exit '") == 0);
}

Test(spec_programs, the_bench_of_texts_and_the_refusals) {
    cr_assert(shell("cp '%s/data/stories-1m.gguf' tale.gguf; mkdir kinds; printf 'Once there was\\n%%%%%%%%\\nIt was a cat\\n' >kinds/tales.txt; echo no >kinds/README.md", origin) == 0);
    cr_expect(shell("$RUN -m tale.gguf --bench-texts kinds -n 16 --repeats 2 --temp 0 >said 2>err && grep -q '^tales.txt: 2 prompts, plain .* tokens/s, with guesses .* guesses held$' said") == 0);
    cr_expect(shell("$RUN -m tale.gguf --bench-texts kinds/tales.txt -n 16 --repeats 1 --json >said 2>err && grep -q '\"prompt\":2,' said") == 0);
    cr_expect(shell("$RUN -m tale.gguf --bench-texts kinds -n 1 2>err") == 2 && shell("grep -q 'behind the first token' err") == 0);
    static const int lengths[] = {2, 16, 17, 18, 33}; // turns are of 16 tokens
    for (size_t i = 0; i < COUNT_OF(lengths); i++)
        cr_expect(shell("$RUN -m tale.gguf --bench-texts kinds -n %d --repeats 1 >said 2>err && grep -q '^tales.txt: 2 prompts, plain [0-9.]* tokens' said", lengths[i]) == 0, "%d", lengths[i]);
    cr_expect(shell("$RUN -m tale.gguf --bench-texts kinds -c 24 -n 100 --repeats 1 >said 2>err && grep -q '^tales.txt: 2 prompts, plain [0-9.]* tokens' said") == 0); // the context ends before
    cr_expect(shell("$RUN -m tale.gguf -p a --spec some 2>err") == 2 && shell("grep -q 'expected auto, none, ngram' err") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec-accept some 2>err") == 2);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec ngram --spec-accept rejection 2>err") == 2 && shell("grep -q 'use coupled' err") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p a --mirostat 1 --spec tree --spec-accept rejection 2>err") == 2);
    cr_expect(shell("$RUN -m tale.gguf -p a --draft-min 5 --draft-max 3 2>err") == 2);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec none --spec-check 2>err") == 2);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec ngram --draft tale.gguf 2>err") == 2 && shell("grep -q 'leave --draft out' err") == 0);
    cr_expect(shell("$RUN -m tale.gguf -p a --spec-nodes 5 2>err") == 2);
    cr_expect(shell("$RUN --list 2>/dev/null | grep -q '^  greedy-multi '") == 0);
}
