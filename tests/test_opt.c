// test_opt.c: option tables on the command line, in files, in help.
//
// One table with a row of every kind serves all tests. Each refusal must name the option, say what is wrong, and leave
// every value as it was.
#include "core/core.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct values {
    bool color, quiet;
    int64_t n, seed;
    double temp, top_p, time;
    const char *model, *out;
    struct opt_words stop;
};

enum { ROWS = 10 };

static void table_make(struct opt table[ROWS], struct values *v) {
    *v = (struct values){
        .color = true, .n = 128, .seed = -1, .temp = 0.8, .top_p = 0.95, .time = 600, .out = "out"};
    const struct opt rows[ROWS] = {
        {"-m --model --old-model", OPT_TEXT, &v->model, 0, 0, "FILE", "[Model] the model to run",
         false},
        {"-o --out", OPT_TEXT, &v->out, 0, 0, "FOLDER", "where results go", false},
        {"-n --predict", OPT_INT, &v->n, -1, 1000000, "N",
         "[Sampling] tokens to make; -1 for no end of them, which is a sentence long enough that "
         "it has to be wrapped",
         false},
        {"-s --seed", OPT_INT, &v->seed, 0, 0, "N", "seed; -1 for the clock", false},
        {"--temp", OPT_REAL, &v->temp, 0, INFINITY, "X", "temperature", false},
        {"--top-p", OPT_REAL, &v->top_p, 0, 1, "X", "nucleus", false},
        {"--stop", OPT_MANY, &v->stop, 0, 0, "TEXT", "ends the text; may be given several times",
         false},
        {"--time", OPT_TIME, &v->time, 1, 864000, "TIME", "how long", false},
        {"--color", OPT_FLAG, &v->color, 0, 0, NULL, "[Output] colors", false},
        {"-q --quiet", OPT_FLAG, &v->quiet, 0, 0, NULL, "say less", false},
    };
    memcpy(table, rows, sizeof rows);
}

// Frees what reading a file left in the values: texts are copies then, by the header's word never freed.
static void values_free(struct values *v, bool copied_out) {
    for (size_t i = 0; i < v->stop.count; i++) mem_free((void *)v->stop.word[i]);
    mem_free((void *)v->stop.word);
    mem_free((void *)v->model);
    if (copied_out) mem_free((void *)v->out);
}

// Parses words separated by '|'; keeps them for the life of the test.
static bool parse(struct opt table[ROWS], const char *line, struct opt_words *rest,
                  struct err *err) {
    static char storage[20][4096];
    static int used;
    char *copy = storage[used++ % 20], *argv[64] = {"program"};
    int argc = 1;
    snprintf(copy, sizeof storage[0], "%s", line);
    for (char *word = copy; *line && word;) {
        char *bar = strchr(word, '|');
        argv[argc++] = word;
        if (bar) *bar = 0;
        word = bar ? bar + 1 : NULL;
    }
    return opt_parse(table, ROWS, argc, argv, rest, err);
}

Test(opt, words_become_values) {
    struct opt table[ROWS];
    struct values v;
    struct opt_words rest = {0};
    struct err err = {""};
    table_make(table, &v);
    cr_assert(parse(table,
                    "a.txt|-m|x.gguf|-n|5|--seed=-7|--temp|1.5e-1|--no-color|-q|-|--stop||--stop="
                    "end|--time|1h30m|b|--|-n|--top-p",
                    &rest, &err),
              "%s", err.text);
    cr_assert_str_eq(v.model, "x.gguf");
    cr_assert(v.n == 5 && v.seed == -7 && v.temp == 0.15 && !v.color && v.quiet && v.time == 5400);
    cr_assert_eq(v.stop.count, 2);
    cr_assert_str_eq(v.stop.word[0], "");
    cr_assert_str_eq(v.stop.word[1], "end");
    static const char *const words[] = {"a.txt", "-", "b", "-n", "--top-p"};
    cr_assert_eq(rest.count, COUNT_OF(words));
    for (size_t i = 0; i < COUNT_OF(words); i++) cr_assert_str_eq(rest.word[i], words[i]);
    static const bool given[ROWS] = {true, false, true, true, true, false, true, true, true, true};
    for (size_t i = 0; i < ROWS; i++) cr_assert_eq(table[i].given, given[i], "%s", table[i].names);
    mem_free((void *)rest.word);
    mem_free((void *)v.stop.word);
}

Test(opt, old_names_and_later_words_count) {
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    table_make(table, &v);
    cr_assert(
        parse(table,
              "--model|a|--old-model|b|-n|1|--predict=2|--color|--no-color|--color=true|--quiet=no",
              NULL, &err),
        "%s", err.text);
    cr_assert_str_eq(v.model, "b");
    cr_assert(v.n == 2 && v.color && !v.quiet);
    cr_assert(parse(table, "--out=|--model|-x y|-n|-1", NULL, &err), "%s", err.text);
    cr_assert_str_eq(v.out, "");
    cr_assert_str_eq(v.model, "-x y");
    cr_assert_eq(v.n, -1);
    cr_assert(parse(table, "--model=--seed|--out==|-s|-0", NULL, &err), "%s", err.text);
    cr_assert_str_eq(v.model, "--seed");
    cr_assert_str_eq(v.out, "=");
}

Test(opt, numbers_have_suffixes_and_powers) {
    static const struct {
        const char *word;
        int64_t value;
    } whole[] = {
        {"--seed=2m", 2000000},
        {"--seed=64K", 64000},
        {"--seed=3g", 3000000000},
        {"--seed=2.3m", 2300000},
        {"--seed=1.5k", 1500},
        {"--seed=1e9", 1000000000},
        {"--seed=+4", 4},
        {"--seed=-2k", -2000},
        {"--seed=007", 7},
        {"--seed=9223372036854775807", INT64_MAX},
        {"--seed=-9223372036854775808", INT64_MIN},
        {"--seed=0.001k", 1},
    };
    static const struct {
        const char *word;
        double value;
    } times[] = {
        {"--time=90", 90},      {"--time=90s", 90},         {"--time=10m", 600},
        {"--time=8h", 28800},   {"--time=2d", 172800},      {"--time=1.5h", 5400},
        {"--time=2h03m", 7380}, {"--time=1d2h3m4s", 93784}, {"--time=12M", 720},
    };
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    table_make(table, &v);
    for (size_t i = 0; i < COUNT_OF(whole); i++) {
        cr_assert(parse(table, whole[i].word, NULL, &err), "%s", err.text);
        cr_assert_eq(v.seed, whole[i].value, "%s", whole[i].word);
    }
    for (size_t i = 0; i < COUNT_OF(times); i++) {
        cr_assert(parse(table, times[i].word, NULL, &err), "%s", err.text);
        cr_assert_float_eq(v.time, times[i].value, 1e-9, "%s", times[i].word);
    }
}

// Each refusal names the option and what is wrong, and leaves every value as it was.
Test(opt, wrong_words_are_refused_with_a_sentence) {
    static const struct {
        const char *line, *names, *says;
    } known[] = {
        {"-n|12x", "-n", "12x"},
        {"-n|", "-n", "whole number"},
        {"-n| 5", "-n", "whole"},
        {"-n|5 ", "-n", "whole"},
        {"-n|0x10", "-n", "0x10"},
        {"-n|1.5", "-n", "1.5"},
        {"-n|nan", "-n", "nan"},
        {"-n|2kk", "-n", "2kk"},
        {"-n|k", "-n", "whole"},
        {"-n|1e3k", "-n", "1e3k"},
        {"-n|2000000", "-n", "from -1 to 1000000"},
        {"-n|2m", "-n", "from -1 to 1000000"},
        {"--predict=-2", "--predict", "from -1"},
        {"--seed|99999999999999999999", "--seed", "too large"},
        {"--seed|10000000000000g", "--seed", "too large"},
        {"--seed|1e300", "--seed", "too large"},
        {"--temp|-1", "--temp", "at least 0"},
        {"--temp|nan", "--temp", "number"},
        {"--temp|inf", "--temp", "number"},
        {"--temp|1e999", "--temp", "at least 0"},
        {"--temp|1,5", "--temp", "1,5"},
        {"--temp|1k", "--temp", "1k"},
        {"--temp|.", "--temp", "number"},
        {"--top-p|1.01", "--top-p", "from 0 to 1"},
        {"--time|10x", "--time", "10x"},
        {"--time|-5", "--time", "time"},
        {"--time|0", "--time", "from 1"},
        {"--time|1h30", "--time", "1h30"},
        {"--time|5m1h", "--time", "5m1h"},
        {"--time|", "--time", "time"},
        {"--time|99d", "--time", "864000"},
        {"--color=maybe", "--color", "maybe"},
        {"--no-color=true", "--no-color", "no value"},
        {"-m", "-m", "FILE"},
        {"-m|--seed|5", "-m", "--seed"},
        {"--seed|--", "--seed", "--"},
        {"--no-temp", "--no-temp", "unknown"},
        {"--sede|5", "--sede", "--seed"},
        {"--tmp=1", "--tmp", "--temp"},
        {"--modle|x", "--modle", "--model"},
        {"-x", "-x", "--help"},
        {"--quite", "--quite", "--quiet"},
        {"--pred|4", "--pred", "--predict"},
        {"---seed|5", "---seed", "--seed"},
        {"-seed|5", "-seed", "--seed"},
        {"extra", "extra", "--help"},
        {"--q\x1b[31m", "?[31m", "unknown"},
        {"--=5", "--", "unknown"},
        {"-5", "-5", "unknown"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct opt table[ROWS];
        struct values v, before;
        struct err err = {""};
        table_make(table, &v);
        before = v;
        cr_assert_not(parse(table, known[i].line, NULL, &err), "%s was accepted", known[i].line);
        cr_assert(strstr(err.text, known[i].names) && strstr(err.text, known[i].says), "%s: %s",
                  known[i].line, err.text);
        for (const char *c = err.text; *c; c++)
            cr_assert((unsigned char)*c >= 0x20, "%s", known[i].line);
        cr_assert_eq(memcmp(&v, &before, sizeof v), 0, "%s", known[i].line);
    }
}

Test(opt, a_megabyte_of_word_is_survived) {
    static char word[1 << 20] = "--";
    memset(word + 2, 'x', sizeof word - 3);
    char *argv[] = {"program", word};
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    table_make(table, &v);
    cr_assert_not(opt_parse(table, ROWS, 2, argv, NULL, &err));
    cr_assert_lt(strlen(err.text), 200);
    memcpy(word, "--seed=9", 8);
    cr_assert_not(opt_parse(table, ROWS, 2, argv, NULL, &err));
    memset(word + 7, '9', sizeof word - 8);
    cr_assert_not(opt_parse(table, ROWS, 2, argv, NULL, &err));
    cr_assert(strstr(err.text, "too large"), "%s", err.text);
    memcpy(word, "--temp=9", 8);
    cr_assert_not(opt_parse(table, ROWS, 2, argv, NULL, &err));
    memcpy(word, "--model=", 8);
    cr_assert(opt_parse(table, ROWS, 2, argv, NULL, &err), "%s", err.text);
}

// opt_write, then opt_read_text into a fresh table: the same values and the same text again.
Test(opt, what_is_written_is_read_back) {
    static const char *const texts[] = {
        "plain",        "",      " leading",    "trailing ",   "two\nlines", "\"quoted\"", "tab\t",
        "# no comment", "a = b", "caf\xc3\xa9", "back\\slash", "\\n",        "\x01",       "x",
        "\"",           "'",     "-m",          "true",
    };
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct opt table[ROWS], other[ROWS];
        struct values v, w;
        struct text first = {0}, second = {0};
        struct err err = {""};
        const char *stops[] = {texts[i], "x", texts[(i + 1) % COUNT_OF(texts)]};
        table_make(table, &v);
        table_make(other, &w);
        v.model = texts[i];
        v.stop = (struct opt_words){stops, 3, 3};
        v.n = (int64_t)i * 1000 - 1;
        v.seed = INT64_MIN;
        v.temp = 0.1 + 0.2;
        v.time = 5400.125;
        v.color = false;
        opt_write(table, ROWS, &first);
        cr_assert(opt_read_text(other, ROWS, first.data, first.len, "test", &err), "%s in\n%s",
                  err.text, first.data);
        cr_assert_str_eq(w.model, texts[i]);
        cr_assert_str_eq(w.out, "out");
        cr_assert(w.n == v.n && w.seed == v.seed && w.temp == v.temp && w.time == v.time &&
                  !w.color && !w.quiet);
        cr_assert_eq(w.stop.count, 3);
        for (size_t k = 0; k < 3; k++) cr_assert_str_eq(w.stop.word[k], stops[k]);
        opt_write(other, ROWS, &second);
        cr_assert_str_eq(first.data, second.data);
        values_free(&w, true);
        text_free(&first);
        text_free(&second);
    }
}

Test(opt, a_text_that_is_not_set_is_not_written) {
    struct opt table[ROWS];
    struct values v;
    struct text t = {0};
    table_make(table, &v);
    v.temp = INFINITY;
    opt_write(table, ROWS, &t);
    cr_assert_null(strstr(t.data, "model"));
    cr_assert_null(strstr(t.data, "temp"));
    cr_assert_not_null(strstr(t.data, "top-p = 0.95\n"));
    text_free(&t);
}

Test(opt, a_file_yields_to_the_command_line) {
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    static const char text[] = "\xef\xbb\xbf# a comment\r\n\r\n  temp = 0.5  \r\nseed=3\n n = "
                               "7\n--out = a b # c\nstop = one\nstop = \"t\\u0077o\"\n"
                               "color = off\ntemp = 0.6\nold-model = m";
    table_make(table, &v);
    cr_assert(parse(table, "--seed|9|--color", NULL, &err), "%s", err.text);
    cr_assert(opt_read_text(table, ROWS, text, sizeof text - 1, "test.conf", &err), "%s", err.text);
    cr_assert(v.seed == 9 && v.color && v.temp == 0.6 && v.n == 7);
    cr_assert_str_eq(v.out, "a b # c");
    cr_assert_str_eq(v.model, "m");
    cr_assert_eq(v.stop.count, 2);
    cr_assert_str_eq(v.stop.word[1], "two");
    cr_assert(table[2].given && !table[7].given);
    values_free(&v, true);
}

Test(opt, a_bad_line_is_named) {
    static const struct {
        const char *text, *says;
    } known[] = {
        {"temp = 0.5\n\nseed = 12x\n", "test.conf line 3"},
        {"sede = 5", "seed"},
        {"temp", "name = value"},
        {"= 5", "unknown"},
        {"no-color = true", "unknown"},
        {"model = \"open", "quote"},
        {"model = \"a\" b", "quote"},
        {"color = 5", "color"},
        {"top-p = 2", "from 0 to 1"},
        {"model = \"a\\u0000b\"", "quote"},
        {"temp =", "number"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct opt table[ROWS];
        struct values v;
        struct err err = {""};
        table_make(table, &v);
        cr_assert_not(
            opt_read_text(table, ROWS, known[i].text, strlen(known[i].text), "test.conf", &err),
            "%s", known[i].text);
        cr_assert(strstr(err.text, "test.conf line") && strstr(err.text, known[i].says), "%s: %s",
                  known[i].text, err.text);
    }
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    table_make(table, &v);
    cr_assert_not(opt_read_text(table, ROWS, "temp = 1\0", 9, "test.conf", &err));
    cr_assert_not(opt_read_file(table, ROWS, "/no/such/file.conf", &err));
    cr_assert(strstr(err.text, "/no/such/file.conf"), "%s", err.text);
    cr_assert_not(opt_read_file(table, ROWS, "/dev/zero", &err));
    cr_assert(opt_read_text(table, ROWS, NULL, 0, "test.conf", &err));
}

// Output of a printing function, owned by the caller.
static char *printed(void (*print)(FILE *to, void *arg), void *arg) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    print(f, arg);
    fclose(f);
    return text;
}

static void print_help(FILE *to, void *table) { opt_help(table, ROWS, to); }

Test(opt, help_shows_groups_defaults_and_ranges_in_100_columns) {
    struct opt table[ROWS];
    struct values v;
    table_make(table, &v);
    char *help = printed(print_help, table);
    static const char *const says[] = {
        "Model:\n",
        "\nSampling:\n",
        "\nOutput:\n",
        "-m, --model FILE",
        "-n, --predict N",
        "(from -1 to 1000000; default 128)",
        "(at least 0; default 0.8)",
        "default 0.95",
        "default 10m",
        "--no-color",
        "(default out)",
        "default -1",
        "-q, --quiet",
    };
    for (size_t i = 0; i < COUNT_OF(says); i++)
        cr_assert(strstr(help, says[i]), "\"%s\" is missing in\n%s", says[i], help);
    cr_assert_null(strstr(help, "old-model"), "%s", help);
    for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n"))
        cr_assert_leq(strlen(line), 100, "%s", line);
    free(help);
}

Test(opt, the_nearest_name_is_near) {
    static const char *const names[] = {"wsd", "power", "cosine", "linear", "constant"};
    cr_assert_str_eq(text_nearest("wds", names, 5), "wsd");
    cr_assert_str_eq(text_nearest("cosin", names, 5), "cosine");
    cr_assert_str_eq(text_nearest("liner", names, 5), "linear");
    cr_assert_str_eq(text_nearest("const", names, 5), "constant");
    cr_assert_null(text_nearest("banana", names, 5));
    cr_assert_null(text_nearest("", names, 5));
    cr_assert_null(text_nearest("x", names, 5));
    cr_assert_null(text_nearest("wsd", names, 0));
    static char longest[70];
    memset(longest, 'a', sizeof longest - 1);
    cr_assert_null(text_nearest(longest, names, 5));
}

Test(opt, times_are_read_back_as_they_are_printed) {
    struct opt table[ROWS];
    struct values v;
    struct err err = {""};
    table_make(table, &v);
    for (double s = 1; s < 800000; s *= 1.37) {
        char word[48] = "--time=", buf[32];
        strcat(word, text_time(buf, s));
        cr_assert(parse(table, word, NULL, &err), "%s", err.text);
        cr_assert_float_eq(v.time, s, s / 20, "%s", word);
    }
}
