// test_core_words.c: JSON, option tables, terminal, plots.
//
// Hostile text is always handed over in a block of exactly its size, so that AddressSanitizer sees a read one byte too
// far. Mutation tests print the seed that failed; the control in each makes sure that good text is still accepted.
#include "core/core.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------------
// JSON, reading.

// Whether n bytes are one good value, checked by json_skip on an exact copy.
static bool accepts(const char *bytes, size_t n, struct err *err) {
    char *copy = malloc(n ? n : 1);
    if (n) memcpy(copy, bytes, n);
    struct json j;
    json_open(&j, copy, n);
    json_skip(&j);
    bool good = json_done(&j, err);
    cr_assert(j.at >= j.start && j.at <= j.end);
    free(copy);
    return good;
}

static const char *const good_texts[] = {
    "0", "-0", "1", "-1", "10", "0.5", "-0.0", "1e5", "1E+5", "1e-5", "123.456e+78", "1e308", "1e-400", "\"\"", "true", "false",
    "null", "[]", "{}", " [ ] ", "\t{\r\n}\n", "[1,2,3]", "[[],[[]],{}]", "{\"a\":1}", "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"e\"}",
    "{\"\":0}", "{\"a\":1,\"a\":2}", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0041\\u00e9\\u20ac\\ud834\\udd1e\"", "\"\\uD800\"",
    "\"\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e\"", "\"\x7f\"", "\"\xff\"", "\xef\xbb\xbf{}", "[1.5,-2e3 , \"x\" ,true]",
    "100000000000000000000000000000000000000000",
};

static const char *const bad_texts[] = {
    "", " ", "\xef\xbb\xbf", "tru", "True", "nul", "nulll", "truefalse", "NaN", "Infinity", "-Infinity", "-", "+1", ".5", "1.", "1.e5",
    "1e", "1e+", "01", "-01", "00", "0x10", "1 2", "1,", "[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[,]", "[1 2]", "[1,,2]",
    "[1}", "{1:2}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,\"a\":1}", "{\"a\":1 \"b\":2}", "{\"a\" 1}", "{\"a\"::1}", "{a:1}",
    "{'a':1}", "{\"a\":1]", "{\"a\":1}}", "\"", "\"abc", "\"\\\"", "\"\\x41\"", "\"\\u\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\U0041\"",
    "\"\\\n\"", "\"a\nb\"", "\"\t\"", "'a'", "// x\n1", "1 // x", "/* */1", "[1]x", "\xff", "[\"a\",\n4\n,1,", "{\"a\":1", "\\u0031",
    "[1e]", "[-]", "[\"a\" \"b\"]", "\"\x1f\"", "{\"a\":\"b", "{\"a", "{\"a\":t}",
};

Test(json, accepts_what_the_standard_accepts) {
    for (size_t i = 0; i < COUNT_OF(good_texts); i++) {
        struct err err = {""};
        cr_assert(accepts(good_texts[i], strlen(good_texts[i]), &err), "%s: %s", good_texts[i], err.text);
    }
}

Test(json, refuses_what_the_standard_refuses) {
    for (size_t i = 0; i < COUNT_OF(bad_texts); i++) {
        struct err err = {""};
        cr_assert_not(accepts(bad_texts[i], strlen(bad_texts[i]), &err), "%s was accepted", bad_texts[i]);
        cr_assert(strncmp(err.text, "JSON: ", 6) == 0 && strstr(err.text, "line"), "%s: %s", bad_texts[i], err.text);
    }
    cr_assert_not(accepts("1\0", 2, NULL));
    cr_assert_not(accepts("\"a\0b\"", 5, NULL));
    cr_assert_not(accepts("[1,\0 2]", 7, NULL));
}

Test(json, no_beginning_of_a_text_is_a_text) {
    static const char whole[] = "{\"a\": [1.5e+3, true, null, \"x\\u00e9\\ud834\\udd1e\\n\xc3\xa9\"], \"b\": {\"c\": false}}";
    cr_assert(accepts(whole, sizeof whole - 1, NULL));
    for (size_t n = 0; n < sizeof whole - 1; n++) cr_assert_not(accepts(whole, n, NULL), "%zu bytes", n);
}

// Random damage: nothing may be read outside or loop; what is accepted must survive being written and read again.
Test(json, damaged_texts_are_safe, .timeout = 10) {
    char bytes[256];
    int accepted = 0;
    for (uint64_t seed = 0; seed < 30000; seed++) {
        const char *text = good_texts[seed % COUNT_OF(good_texts)];
        size_t n = strlen(text);
        memcpy(bytes, text, n);
        uint64_t edits = 1 + rng_below(1, seed, 0, 3);
        for (uint64_t e = 0; e < edits && n > 0; e++) {
            static const char interesting[] = "{}[]\",:\\u019.eE+-tfn \n\xff\xc3\x00";
            uint64_t at = rng_below(2, seed, e, n);
            switch (rng_below(3, seed, e, 3)) {
            case 0: bytes[at] = interesting[rng_below(4, seed, e, sizeof interesting)]; break;
            case 1: memmove(bytes + at, bytes + at + 1, --n - at); break;
            default:
                memmove(bytes + at + 1, bytes + at, n++ - at);
                bytes[at] = interesting[rng_below(5, seed, e, sizeof interesting)];
            }
        }
        accepted += accepts(bytes, n, NULL);
    }
    cr_assert(accepted > 1000 && accepted < 25000, "%d of 30000 accepted: the test lost its bite", accepted);
}

Test(json, depth_is_bounded_and_cheap, .timeout = 5) {
    static char deep[1 << 20];
    for (int depth = 30; depth <= 34; depth++) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        cr_assert_eq(accepts(deep, 2 * (size_t)depth, NULL), depth <= 32, "depth %d", depth);
    }
    struct err err;
    memset(deep, '[', sizeof deep);
    cr_assert_not(accepts(deep, sizeof deep, &err));
    cr_assert(strstr(err.text, "32"), "%s", err.text);
    for (size_t i = 0; i + 5 <= sizeof deep; i += 5) memcpy(deep + i, "{\"a\":", 5);
    cr_assert_not(accepts(deep, sizeof deep, NULL));
}

Test(json, a_document_is_read_by_its_caller) {
    static const char text[] = "{ \"name\": \"w\\u00e4\", \"shape\": [2, 3], \"skip\": {\"x\": [[1], {}]}, \"on\": true, \"lr\": -2.5e-3 }";
    struct json j;
    char key[16];
    struct text name = {0};
    int64_t shape[4], n = 0;
    bool on = false;
    double lr = 0;
    json_open(&j, text, sizeof text - 1);
    cr_assert_eq(json_peek(&j), JSON_OBJECT);
    cr_assert(json_object(&j));
    while (json_key(&j, key, sizeof key)) {
        if (!strcmp(key, "name")) json_string(&j, &name);
        else if (!strcmp(key, "on")) json_bool(&j, &on);
        else if (!strcmp(key, "lr")) json_number(&j, &lr);
        else if (!strcmp(key, "shape") && json_array(&j)) while (json_item(&j)) json_integer(&j, &shape[n++]);
        else json_skip(&j);
    }
    struct err err = {""};
    cr_assert(json_done(&j, &err), "%s", err.text);
    cr_assert_str_eq(name.data, "w\xc3\xa4");
    cr_assert(n == 2 && shape[0] == 2 && shape[1] == 3 && on && lr == -2.5e-3);
    cr_assert_eq(json_peek(&j), JSON_END);
    text_free(&name);
}

Test(json, peek_names_every_kind) {
    static const struct { const char *text; enum json_kind kind; } known[] = {
        {" {", JSON_OBJECT}, {"[", JSON_ARRAY}, {"\"", JSON_STRING}, {"-", JSON_NUMBER}, {"7", JSON_NUMBER}, {"t", JSON_TRUE},
        {"f", JSON_FALSE}, {"n", JSON_NULL}, {"x", JSON_BAD}, {"", JSON_END}, {"  ", JSON_END}, {"}", JSON_BAD},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct json j;
        json_open(&j, known[i].text, strlen(known[i].text));
        cr_assert_eq(json_peek(&j), known[i].kind, "\"%s\"", known[i].text);
    }
}

Test(json, the_first_error_sticks_and_is_located) {
    static const char text[] = "{\n  \"a\": 1,\n  \"b\": bad\n}";
    struct json j;
    char key[8];
    double x = 5;
    int keys = 0;
    json_open(&j, text, sizeof text - 1);
    json_object(&j);
    while (json_key(&j, key, sizeof key)) keys += json_number(&j, &x);
    cr_assert_eq(keys, 1);
    cr_assert_eq(x, 1);
    cr_assert_not(json_skip(&j));
    cr_assert_not(json_array(&j));
    cr_assert_eq(json_peek(&j), JSON_BAD);
    struct err err;
    cr_assert_not(json_done(&j, &err));
    cr_assert(strstr(err.text, "expected a number") && strstr(err.text, "line 3, column 8"), "%s", err.text);
}

Test(json, a_value_of_another_kind_is_refused) {
    struct json j;
    struct text t = {0};
    bool b;
    double x;
    int64_t n;
    json_open(&j, "1", 1);
    cr_assert_not(json_string(&j, &t));
    json_open(&j, "1", 1);
    cr_assert_not(json_bool(&j, &b));
    json_open(&j, "[]", 2);
    cr_assert_not(json_object(&j));
    json_open(&j, "{}", 2);
    cr_assert_not(json_array(&j));
    json_open(&j, "\"1\"", 3);
    cr_assert_not(json_number(&j, &x));
    json_open(&j, "null", 4);
    cr_assert_not(json_integer(&j, &n));
    text_free(&t);
}

Test(json, what_was_not_read_to_its_end_is_not_done) {
    struct json j;
    json_open(&j, "[1,2]", 5);
    cr_assert(json_array(&j) && json_item(&j) && json_skip(&j));
    cr_assert_not(json_done(&j, NULL));
    json_open(&j, "[1]", 3);
    cr_assert_not(json_done(&j, NULL));
}

Test(json, strings_are_decoded) {
    static const struct { const char *text, *value; } known[] = {
        {"\"\\ud834\\udd1e\"", "\xf0\x9d\x84\x9e"},                        // a surrogate pair
        {"\"\\ud834x\"", "\xef\xbf\xbdx"}, {"\"\\udd1e\"", "\xef\xbf\xbd"}, // lone ones
        {"\"\\ud834\\u0041\"", "\xef\xbf\xbd" "A"}, {"\"\\ud834\\ud834\\udd1e\"", "\xef\xbf\xbd\xf0\x9d\x84\x9e"},
        {"\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf"}, {"\"\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
        {"\"a\xff" "b\"", "a\xef\xbf\xbd" "b"}, {"\"\xc3\"", "\xef\xbf\xbd"}, {"\"\xed\xa0\x80\"", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\"\xc0\x80\"", "\xef\xbf\xbd\xef\xbf\xbd"}, {"\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"", "\b\f\n\r\t/\\\""},
    };
    struct text t = {0};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct json j;
        json_open(&j, known[i].text, strlen(known[i].text));
        cr_assert(json_string(&j, &t) && json_done(&j, NULL), "%s", known[i].text);
        cr_assert_str_eq(t.data, known[i].value, "%s", known[i].text);
    }
    struct json j;
    json_open(&j, "\"a\\u0000b\"", 10); // a text may hold a NUL; what was in it before is gone
    cr_assert(json_string(&j, &t));
    cr_assert_eq(t.len, 3);
    cr_assert_eq(memcmp(t.data, "a\0b", 4), 0);
    text_free(&t);
}

Test(json, keys_are_bounded) {
    struct json j;
    char key[4];
    json_open(&j, "{\"abc\":1}", 9);
    cr_assert(json_object(&j) && json_key(&j, key, sizeof key));
    cr_assert_str_eq(key, "abc");
    json_open(&j, "{\"abcd\":1}", 10);
    json_object(&j);
    cr_assert_not(json_key(&j, key, sizeof key));
    cr_assert_not(json_done(&j, NULL));
    json_open(&j, "{\"a\\u0000\":1}", 13); // would compare equal to "a"
    json_object(&j);
    cr_assert_not(json_key(&j, key, sizeof key));
    json_open(&j, "{\"abcdefgh\":1}", 14);
    cr_assert(json_skip(&j) && json_done(&j, NULL));
}

Test(json, numbers_have_their_range) {
    static const struct { const char *text; bool good; int64_t value; } integers[] = {
        {"9223372036854775807", true, INT64_MAX}, {"-9223372036854775808", true, INT64_MIN}, {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0}, {"1e3", true, 1000}, {"2.0", true, 2}, {"2.5", false, 0}, {"1e300", false, 0},
        {"-0", true, 0}, {"1e-1", false, 0}, {"99999999999999999999999", false, 0}, {"12e-1", false, 0},
    };
    for (size_t i = 0; i < COUNT_OF(integers); i++) {
        struct json j;
        int64_t value = 77;
        json_open(&j, integers[i].text, strlen(integers[i].text));
        cr_assert_eq(json_integer(&j, &value), integers[i].good, "%s", integers[i].text);
        cr_assert_eq(value, integers[i].good ? integers[i].value : 77, "%s", integers[i].text);
    }
    struct json j;
    double x;
    struct err err;
    json_open(&j, "1e309", 5);
    cr_assert_not(json_number(&j, &x));
    cr_assert_not(json_done(&j, &err));
    cr_assert(strstr(err.text, "out of range"), "%s", err.text);
    json_open(&j, "-1e-999", 7);
    cr_assert(json_number(&j, &x) && x == 0);
    static char digits[3000];
    memset(digits, '1', sizeof digits);
    json_open(&j, digits, sizeof digits);
    cr_assert_not(json_number(&j, &x));
}

Test(json, utf8_characters_are_measured) {
    static const struct { const char *bytes; size_t size; } known[] = {
        {"a", 1}, {"\x7f", 1}, {"\x80", 0}, {"\xc1\xbf", 0}, {"\xc2\x80", 2}, {"\xdf\xbf", 2}, {"\xe0\x9f\xbf", 0}, {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3}, {"\xed\xa0\x80", 0}, {"\xef\xbf\xbf", 3}, {"\xf0\x8f\xbf\xbf", 0}, {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4}, {"\xf4\x90\x80\x80", 0}, {"\xf5\x80\x80\x80", 0}, {"\xff", 0}, {"\xe2\x82", 0}, {"\xf0\x9d\x84", 0},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        cr_assert_eq(utf8_size(known[i].bytes, strlen(known[i].bytes)), known[i].size, "entry %zu", i);
    }
    cr_assert_eq(utf8_size("\xe2\x82\xac", 2), 0);
    cr_assert_eq(utf8_size("", 0), 0);
}

// ---------------------------------------------------------------------------------------------------------------
// JSON, writing.

Test(json, writes_what_reads_back) {
    struct text t = {0};
    struct json_out o;
    json_out_open(&o, &t);
    json_out_object(&o, NULL);
    json_out_string(&o, "s", "a\"\\\n\x01\xff\xc3\xa9", 8);
    json_out_array(&o, "list");
    json_out_number(&o, NULL, 0.1);
    json_out_integer(&o, NULL, INT64_MIN);
    json_out_object(&o, NULL);
    json_out_close(&o, '}');
    json_out_array(&o, NULL);
    json_out_close(&o, ']');
    json_out_close(&o, ']');
    json_out_bool(&o, "yes", true);
    json_out_null(&o, "none");
    json_out_number(&o, "nan", NAN);
    json_out_number(&o, "inf", -INFINITY);
    json_out_close(&o, '}');
    cr_assert_str_eq(t.data, "{\"s\":\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\",\"list\":[0.1,-9223372036854775808,{},[]],"
                             "\"yes\":true,\"none\":null,\"nan\":null,\"inf\":null}");
    cr_assert(accepts(t.data, t.len, NULL));
    text_free(&t);
}

Test(json, every_double_comes_back_with_few_digits) {
    struct text t = {0};
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = rng_u64(40, 0, i);
        double x, y = 0;
        memcpy(&x, &bits, 8);
        if (!isfinite(x)) continue;
        if (i % 4 == 0) x = round(x * 1000) / 1000;
        if (!isfinite(x)) continue;
        struct json_out o;
        struct json j;
        text_clear(&t);
        json_out_open(&o, &t);
        json_out_number(&o, NULL, x);
        json_open(&j, t.data, t.len);
        cr_assert(json_number(&j, &y) && json_done(&j, NULL), "%s", t.data);
        cr_assert(memcmp(&x, &y, 8) == 0, "%.17g was written as %s", x, t.data);
    }
    static const struct { double x; const char *text; } short_ones[] = {
        {0.1, "0.1"}, {3, "3"}, {1e21, "1e+21"}, {-0.0, "-0"}, {0.3 - 0.2, "0.09999999999999998"}, {1e-5, "1e-05"}, {100000, "100000"}};
    for (size_t i = 0; i < COUNT_OF(short_ones); i++) {
        struct json_out o;
        text_clear(&t);
        json_out_open(&o, &t);
        json_out_number(&o, NULL, short_ones[i].x);
        cr_assert_str_eq(t.data, short_ones[i].text);
    }
    text_free(&t);
}

Test(json, every_byte_string_is_written_readably) {
    struct text t = {0}, back = {0};
    for (uint64_t i = 0; i < 3000; i++) {
        char bytes[24];
        size_t n = (size_t)rng_below(50, i, 0, sizeof bytes + 1);
        for (size_t k = 0; k < n; k++) bytes[k] = (char)rng_below(51, i, k, i % 2 ? 256 : 128);
        struct json_out o;
        struct json j;
        text_clear(&t);
        json_out_open(&o, &t);
        json_out_string(&o, NULL, bytes, n);
        json_open(&j, t.data, t.len);
        cr_assert(json_string(&j, &back) && json_done(&j, NULL), "seed %d: %s", (int)i, t.data);
        for (size_t at = 0; at < back.len;) { // valid UTF-8, and the same where the bytes were
            size_t size = utf8_size(back.data + at, back.len - at);
            cr_assert_neq(size, 0, "seed %d", (int)i);
            at += size;
        }
        if (i % 2 == 0) cr_assert(back.len == n && memcmp(back.data, bytes, n) == 0, "seed %d", (int)i);
    }
    text_free(&t);
    text_free(&back);
}

// ---------------------------------------------------------------------------------------------------------------
// Options.

struct values {
    bool color, quiet;
    int64_t n, seed;
    double temp, top_p, time;
    const char *model, *out;
    struct opt_words stop;
};

enum { ROWS = 10 };

static void table_make(struct opt table[ROWS], struct values *v) {
    *v = (struct values){.color = true, .n = 128, .seed = -1, .temp = 0.8, .top_p = 0.95, .time = 600, .out = "out"};
    const struct opt rows[ROWS] = {
        {"-m --model --old-model", OPT_TEXT, &v->model, 0, 0, "FILE", "[Model] the model to run", false},
        {"-o --out", OPT_TEXT, &v->out, 0, 0, "FOLDER", "where results go", false},
        {"-n --predict", OPT_INT, &v->n, -1, 1000000, "N", "[Sampling] tokens to make; -1 for no end of them, which is a sentence long enough that it has to be wrapped", false},
        {"-s --seed", OPT_INT, &v->seed, 0, 0, "N", "seed; -1 for the clock", false},
        {"--temp", OPT_REAL, &v->temp, 0, INFINITY, "X", "temperature", false},
        {"--top-p", OPT_REAL, &v->top_p, 0, 1, "X", "nucleus", false},
        {"--stop", OPT_MANY, &v->stop, 0, 0, "TEXT", "ends the text; may be given several times", false},
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
static bool parse(struct opt table[ROWS], const char *line, struct opt_words *rest, struct err *err) {
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
    cr_assert(parse(table, "a.txt|-m|x.gguf|-n|5|--seed=-7|--temp|1.5e-1|--no-color|-q|-|--stop||--stop=end|--time|1h30m|b|--|-n|--top-p",
                    &rest, &err), "%s", err.text);
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
    cr_assert(parse(table, "--model|a|--old-model|b|-n|1|--predict=2|--color|--no-color|--color=true|--quiet=no", NULL, &err), "%s", err.text);
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
    static const struct { const char *word; int64_t value; } whole[] = {
        {"--seed=2m", 2000000}, {"--seed=64K", 64000}, {"--seed=3g", 3000000000}, {"--seed=2.3m", 2300000}, {"--seed=1.5k", 1500},
        {"--seed=1e9", 1000000000}, {"--seed=+4", 4}, {"--seed=-2k", -2000}, {"--seed=007", 7}, {"--seed=9223372036854775807", INT64_MAX},
        {"--seed=-9223372036854775808", INT64_MIN}, {"--seed=0.001k", 1},
    };
    static const struct { const char *word; double value; } times[] = {
        {"--time=90", 90}, {"--time=90s", 90}, {"--time=10m", 600}, {"--time=8h", 28800}, {"--time=2d", 172800}, {"--time=1.5h", 5400},
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
    static const struct { const char *line, *names, *says; } known[] = {
        {"-n|12x", "-n", "12x"}, {"-n|", "-n", "whole number"}, {"-n| 5", "-n", "whole"}, {"-n|5 ", "-n", "whole"}, {"-n|0x10", "-n", "0x10"},
        {"-n|1.5", "-n", "1.5"}, {"-n|nan", "-n", "nan"}, {"-n|2kk", "-n", "2kk"}, {"-n|k", "-n", "whole"}, {"-n|1e3k", "-n", "1e3k"},
        {"-n|2000000", "-n", "from -1 to 1000000"}, {"-n|2m", "-n", "from -1 to 1000000"}, {"--predict=-2", "--predict", "from -1"},
        {"--seed|99999999999999999999", "--seed", "too large"}, {"--seed|10000000000000g", "--seed", "too large"}, {"--seed|1e300", "--seed", "too large"},
        {"--temp|-1", "--temp", "at least 0"}, {"--temp|nan", "--temp", "number"}, {"--temp|inf", "--temp", "number"},
        {"--temp|1e999", "--temp", "at least 0"}, {"--temp|1,5", "--temp", "1,5"}, {"--temp|1k", "--temp", "1k"}, {"--temp|.", "--temp", "number"},
        {"--top-p|1.01", "--top-p", "from 0 to 1"}, {"--time|10x", "--time", "10x"}, {"--time|-5", "--time", "time"}, {"--time|0", "--time", "from 1"},
        {"--time|1h30", "--time", "1h30"}, {"--time|5m1h", "--time", "5m1h"}, {"--time|", "--time", "time"}, {"--time|99d", "--time", "864000"},
        {"--color=maybe", "--color", "maybe"}, {"--no-color=true", "--no-color", "no value"}, {"-m", "-m", "FILE"}, {"-m|--seed|5", "-m", "--seed"},
        {"--seed|--", "--seed", "--"}, {"--no-temp", "--no-temp", "unknown"}, {"--sede|5", "--sede", "--seed"}, {"--tmp=1", "--tmp", "--temp"},
        {"--modle|x", "--modle", "--model"}, {"-x", "-x", "--help"}, {"--quite", "--quite", "--quiet"}, {"--pred|4", "--pred", "--predict"},
        {"---seed|5", "---seed", "--seed"}, {"-seed|5", "-seed", "--seed"}, {"extra", "extra", "--help"}, {"--q\x1b[31m", "?[31m", "unknown"},
        {"--=5", "--", "unknown"}, {"-5", "-5", "unknown"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct opt table[ROWS];
        struct values v, before;
        struct err err = {""};
        table_make(table, &v);
        before = v;
        cr_assert_not(parse(table, known[i].line, NULL, &err), "%s was accepted", known[i].line);
        cr_assert(strstr(err.text, known[i].names) && strstr(err.text, known[i].says), "%s: %s", known[i].line, err.text);
        for (const char *c = err.text; *c; c++) cr_assert((unsigned char)*c >= 0x20, "%s", known[i].line);
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
        "plain", "", " leading", "trailing ", "two\nlines", "\"quoted\"", "tab\t", "# no comment", "a = b", "caf\xc3\xa9", "back\\slash", "\\n",
        "\x01", "x", "\"", "'", "-m", "true",
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
        cr_assert(opt_read_text(other, ROWS, first.data, first.len, "test", &err), "%s in\n%s", err.text, first.data);
        cr_assert_str_eq(w.model, texts[i]);
        cr_assert_str_eq(w.out, "out");
        cr_assert(w.n == v.n && w.seed == v.seed && w.temp == v.temp && w.time == v.time && !w.color && !w.quiet);
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
    static const char text[] = "\xef\xbb\xbf# a comment\r\n\r\n  temp = 0.5  \r\nseed=3\n n = 7\n--out = a b # c\nstop = one\nstop = \"t\\u0077o\"\n"
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
    static const struct { const char *text, *says; } known[] = {
        {"temp = 0.5\n\nseed = 12x\n", "test.conf line 3"}, {"sede = 5", "seed"}, {"temp", "name = value"}, {"= 5", "unknown"},
        {"no-color = true", "unknown"}, {"model = \"open", "quote"}, {"model = \"a\" b", "quote"}, {"color = 5", "color"},
        {"top-p = 2", "from 0 to 1"}, {"model = \"a\\u0000b\"", "quote"}, {"temp =", "number"},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        struct opt table[ROWS];
        struct values v;
        struct err err = {""};
        table_make(table, &v);
        cr_assert_not(opt_read_text(table, ROWS, known[i].text, strlen(known[i].text), "test.conf", &err), "%s", known[i].text);
        cr_assert(strstr(err.text, "test.conf line") && strstr(err.text, known[i].says), "%s: %s", known[i].text, err.text);
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
        "Model:\n", "\nSampling:\n", "\nOutput:\n", "-m, --model FILE", "-n, --predict N", "(from -1 to 1000000; default 128)",
        "(at least 0; default 0.8)", "default 0.95", "default 10m", "--no-color", "(default out)", "default -1", "-q, --quiet",
    };
    for (size_t i = 0; i < COUNT_OF(says); i++) cr_assert(strstr(help, says[i]), "\"%s\" is missing in\n%s", says[i], help);
    cr_assert_null(strstr(help, "old-model"), "%s", help);
    for (char *line = strtok(help, "\n"); line; line = strtok(NULL, "\n")) cr_assert_leq(strlen(line), 100, "%s", line);
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

// ---------------------------------------------------------------------------------------------------------------
// Terminal.

Test(term, numbers_are_short) {
    static const struct { double x; const char *text; } counts[] = {
        {0, "0"}, {7, "7"}, {999, "999"}, {999.6, "1k"}, {1200, "1.2k"}, {3450000, "3.45M"}, {2e9, "2G"}, {-1234, "-1.23k"}, {0.5, "0.5"},
        {999500, "1M"}, {1e12, "1T"}, {INFINITY, "inf"}};
    static const struct { double s; const char *text; } times[] = {
        {0, "0s"}, {1.25, "1.2s"}, {9.96, "10s"}, {59.4, "59s"}, {59.7, "1m"}, {60, "1m"}, {725, "12m05s"}, {3600, "1h"}, {7380, "2h03m"},
        {86400, "1d"}, {273600, "3d04h"}, {-90, "-1m30s"}, {INFINITY, "forever"}, {NAN, "unknown"}};
    static const struct { double b; const char *text; } bytes[] = {
        {0, "0 B"}, {999, "999 B"}, {1000, "1.0 kB"}, {12e6, "12.0 MB"}, {999.96e3, "1.0 MB"}, {1.5e9, "1.5 GB"}};
    char buf[32];
    for (size_t i = 0; i < COUNT_OF(counts); i++) cr_assert_str_eq(text_count(buf, counts[i].x), counts[i].text);
    for (size_t i = 0; i < COUNT_OF(times); i++) cr_assert_str_eq(text_time(buf, times[i].s), times[i].text);
    for (size_t i = 0; i < COUNT_OF(bytes); i++) cr_assert_str_eq(text_bytes(buf, bytes[i].b), bytes[i].text);
    text_count(buf, 1e300);
    text_time(buf, 1e13);
    text_bytes(buf, -1e300);
}

Test(term, printed_times_are_read_back) {
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

// Progress with stderr in a file: whole lines, no escapes, at most one in the interval unless forced.
Test(term, progress_without_a_terminal_is_plain_lines) {
    FILE *f = tmpfile();
    int saved = dup(2);
    dup2(fileno(f), 2);
    struct progress p;
    progress_open(&p, 1000);
    for (int i = 0; i < 100; i++) progress_line(&p, false, "step %d", i);
    progress_note(&p, "saved %s", "a.gguf");
    progress_line(&p, true, "step %d", 100);
    progress_close(&p);
    dup2(saved, 2);
    char text[400] = "";
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    cr_assert_str_eq(text, "step 0\nsaved a.gguf\nstep 100\n");
    cr_assert_not(p.tty);
}

// Runs on a pseudo terminal of 30 columns; what it received goes to text.
static void on_terminal(void (*run)(void), char *text, size_t cap) {
    int host = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(host >= 0 && grantpt(host) == 0 && unlockpt(host) == 0);
    int guest = open(ptsname(host), O_RDWR | O_NOCTTY), saved = dup(2);
    struct winsize size = {.ws_row = 24, .ws_col = 30};
    ioctl(guest, TIOCSWINSZ, &size);
    dup2(guest, 2);
    run();
    dup2(saved, 2);
    close(guest);
    size_t n = 0;
    for (ssize_t got; n + 1 < cap && (got = read(host, text + n, cap - 1 - n)) > 0;) n += (size_t)got;
    text[n] = 0;
    close(host);
}

static void run_progress(void) {
    struct progress p;
    progress_open(&p, 1000);
    progress_line(&p, true, "one");
    progress_line(&p, false, "too soon");
    progress_note(&p, "a note");
    progress_line(&p, true, "caf\xc3\xa9 0123456789 0123456789 0123456789\nsecond");
    progress_close(&p);
    progress_close(&p);
    fprintf(stderr, "%d %d %d", term_is_tty(stderr), term_color(stderr), term_width());
}

Test(term, progress_on_a_terminal_redraws_one_line) {
    char text[600];
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    on_terminal(run_progress, text, sizeof text);
    cr_assert_str_eq(text, "\rone\x1b[K\r\x1b[Ka note\r\n\rcaf\xc3\xa9 0123456789 0123456789 01\x1b[K\r\n1 1 30");
    setenv("NO_COLOR", "1", 1);
    on_terminal(run_progress, text, sizeof text);
    cr_assert_str_eq(text + strlen(text) - 6, "1 0 30");
    setenv("TERM", "dumb", 1);
    on_terminal(run_progress, text, sizeof text);
    cr_assert_null(strchr(text, '\x1b'), "%s", text);
}

// ---------------------------------------------------------------------------------------------------------------
// Plots.

struct drawing {
    struct plot plot;
    int width, height;
};

static void print_plot(FILE *to, void *arg) {
    struct drawing *d = arg;
    plot_terminal(&d->plot, d->width, d->height, to);
}

static char *drawn(const char *locale, struct plot plot, int width, int height) {
    setenv("LC_ALL", locale, 1);
    return printed(print_plot, &(struct drawing){plot, width, height});
}

static size_t times_in(const char *text, const char *word) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word)) n++;
    return n;
}

// A falling curve with a gap in the middle, some evaluations and a floor.
enum { POINTS = 2000 };
static double curve_x[POINTS], curve_y[POINTS], eval_x[5], eval_y[5], floor_x[2] = {0, POINTS}, floor_y[2] = {1, 1};

static void curve_make(void) {
    for (int i = 0; i < POINTS; i++) {
        curve_x[i] = i;
        curve_y[i] = i >= 900 && i < 1100 ? NAN : 1.2 + 8 * exp(-i / 300.0);
    }
    for (int i = 0; i < 5; i++) {
        eval_x[i] = i * 400;
        eval_y[i] = 3 + 8 * exp(-i / 2.0);
    }
}

#define CURVE {"train", curve_x, curve_y, POINTS, LOOK_LINE}
#define EVALS {"valid & <new>", eval_x, eval_y, 5, LOOK_POINTS}
#define FLOOR {"floor", floor_x, floor_y, 2, LOOK_DASHED}

// Width in characters of every line, and that it is UTF-8.
static int lines_within(const char *text, int width) {
    int lines = 0, column = 0;
    for (size_t at = 0, n = strlen(text); at < n; lines += text[at] == '\n', at += utf8_size(text + at, n - at)) {
        cr_assert_neq(utf8_size(text + at, n - at), 0, "no UTF-8 at byte %zu of\n%s", at, text);
        column = text[at] == '\n' ? 0 : column + 1;
        cr_assert_leq(column, width, "%s", text);
    }
    return lines;
}

Test(plot, the_terminal_gets_its_size_and_its_alphabet) {
    curve_make();
    const struct series series[] = {CURVE, EVALS, FLOOR};
    struct plot plot = {"Loss", "tokens", "nats", series, 3, false};
    static const int sizes[][2] = {{80, 20}, {120, 40}, {50, 12}, {60, 8}};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        char *plain = drawn("C", plot, sizes[i][0], sizes[i][1]), *fine = drawn("en_US.UTF-8", plot, sizes[i][0], sizes[i][1]);
        cr_assert_eq(lines_within(plain, sizes[i][0]), sizes[i][1], "%s", plain);
        cr_assert_eq(lines_within(fine, sizes[i][0]), sizes[i][1], "%s", fine);
        for (const char *c = plain; *c; c++) cr_assert_lt((unsigned char)*c, 0x7f, "%s", plain);
        cr_assert(strstr(fine, "\xe2\xa0") || strstr(fine, "\xe2\xa1"), "no braille in\n%s", fine);
        cr_assert_null(strchr(fine, '\x1b'));
        static const char *const says[] = {"Loss", "nats", "train", "valid & <new>", "floor", "o ", "x: tokens"};
        for (size_t k = 0; k < COUNT_OF(says) - (sizes[i][0] < 60); k++) { // no room for the last one in 50 columns
            cr_assert(strstr(plain, says[k]) && strstr(fine, says[k]), "%s is missing in\n%s", says[k], plain);
        }
        free(plain);
        free(fine);
    }
}

// In ASCII: column of the gap empty, the first column's mark at the top, the last one's near the bottom.
Test(plot, the_terminal_shows_the_curve) {
    curve_make();
    const struct series series[] = {CURVE};
    char *text = drawn("C", (struct plot){"Loss", "", "", series, 1, false}, 87, 24), *line[24];
    int n = 0;
    for (char *at = strtok(text, "\n"); at && n < 24; at = strtok(NULL, "\n")) line[n++] = at;
    int first = -1, last = -1, gap = 0;
    for (int row = 1; row < 21; row++) {
        const char *area = strpbrk(line[row], "|+");
        cr_assert_not_null(area);
        size_t width = strlen(++area);
        if (width > 0 && area[0] == '*') first = row;
        if (width > 79 && area[79] == '*') last = row;
        for (size_t c = 37; c < 43 && c < width; c++) gap += area[c] == '*';
    }
    cr_assert(first == 1 || first == 2, "first %d", first);
    cr_assert(last >= 17 && last <= 20, "last %d", last);
    cr_assert_eq(gap, 0, "the gap is drawn over");
    free(text);
}

static size_t svg_points(const char *svg) { // coordinates in polylines
    size_t n = 0;
    for (const char *at = svg; (at = strstr(at, "points=\"")); at++) {
        for (const char *c = at + 8; *c != '"'; c++) n += *c == ',';
    }
    return n;
}

// Every tag is closed, attributes are quoted, no entity is open.
static void expect_xml(const char *svg) {
    int depth = 0;
    for (const char *at = svg; (at = strchr(at, '<')); at++) {
        const char *end = strchr(at, '>');
        cr_assert_not_null(end);
        if (at[1] == '/') depth--;
        else if (end[-1] != '/') depth++;
        cr_assert_geq(depth, 0);
        cr_assert_eq(memchr(at + 1, '<', (size_t)(end - at - 1)), NULL);
    }
    cr_assert_eq(depth, 0, "%s", svg);
    for (const char *at = svg; (at = strchr(at, '&')); at++) {
        cr_assert(!strncmp(at, "&amp;", 5) || !strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4), "%.20s", at);
    }
    cr_assert_null(strstr(svg, "nan"), "%s", svg);
    cr_assert_null(strstr(svg, "inf"));
}

Test(plot, svg_is_whole_and_small) {
    curve_make();
    const struct series series[] = {CURVE, EVALS, FLOOR};
    struct text t = {0};
    plot_svg(&(struct plot){"Loss <1>", "tokens", "nats", series, 3, false}, 480, 280, &t);
    expect_xml(t.data);
    cr_assert_eq(times_in(t.data, "<svg"), 1);
    cr_assert_not_null(strstr(t.data, "viewBox=\"0 0 480 280\""));
    cr_assert_not_null(strstr(t.data, "valid &amp; &lt;new&gt;"));
    cr_assert_not_null(strstr(t.data, "Loss &lt;1&gt;"));
    cr_assert_not_null(strstr(t.data, "var(--series-1,"));
    cr_assert_eq(times_in(t.data, "<circle"), 5 + 1); // the evaluations, and their mark in the legend
    cr_assert_eq(times_in(t.data, "<polyline"), 2 + 1 + 1); // the gap cuts the curve
    cr_assert_leq(svg_points(t.data), 2 * 480 + 10);
    cr_assert_null(strstr(t.data, "href"));
    text_free(&t);
}

// A million points with one peak: the file stays small and the peak stays.
Test(plot, svg_keeps_the_extremes_of_many_points) {
    enum { MANY = 1000000 };
    double *x = mem_array(MANY, sizeof *x, "test"), *y = mem_array(MANY, sizeof *y, "test");
    for (int i = 0; i < MANY; i++) {
        x[i] = i;
        y[i] = i == 654321 ? 100 : sin(i);
    }
    const struct series series[] = {{"many", x, y, MANY, LOOK_LINE}};
    struct text t = {0};
    plot_svg(&(struct plot){"", "", "", series, 1, false}, 480, 280, &t);
    cr_assert_leq(svg_points(t.data), 2 * 410);
    cr_assert_lt(t.len, 30000);
    double top = 1e9;
    for (const char *at = strstr(t.data, "points=\"") + 8; *at != '"';) {
        char *end;
        strtod(at, &end);
        double v = strtod(end + 1, &end);
        top = fmin(top, v);
        at = end + (*end == ' ');
    }
    cr_assert_lt(top, 62, "the peak is cut: %g", top); // the frame begins at 52
    mem_free(x);
    mem_free(y);
    text_free(&t);
}

Test(plot, odd_data_is_drawn_or_left_out_but_never_breaks, .timeout = 10) {
    static const double odd[][4] = {
        {1, 1, 1, 1}, {0, 0, 0, 0}, {NAN, NAN, NAN, NAN}, {INFINITY, 1, -INFINITY, 2}, {1e308, -1e308, 1, 2}, {1e-320, 2e-320, 0, 0},
        {-1, -2, -3, -4}, {1e15, 1e15 + 1, 1e15, 1e15}, {1e-9, 1e9, 1e-9, 1e9}, {NAN, 5, NAN, 5}, {1, 1 + 1e-15, 1, 1}, {1e299, 1, 0, -1e299},
        {5e-324, 1e299, 1, 2}, {-0.0, 0.0, -0.0, 0.0},
    };
    for (size_t a = 0; a < COUNT_OF(odd); a++) {
        for (size_t b = 0; b < COUNT_OF(odd); b++) {
            for (size_t n = 0; n <= 4; n++) {
                const struct series series[] = {{"odd", odd[b], odd[a], n, (enum series_look)(n % 4)}, {NULL, odd[a], odd[b], n, LOOK_LINE}};
                struct plot plot = {NULL, NULL, NULL, series, 2, (a + n) % 2 == 0};
                struct text t = {0};
                plot_svg(&plot, 480, 280, &t);
                expect_xml(t.data);
                cr_assert_lt(t.len, 10000);
                char *text = drawn(n % 2 ? "C" : "C.UTF-8", plot, 60, 10);
                cr_assert_eq(lines_within(text, 60), 10, "y %zu, x %zu, n %zu\n%s", a, b, n, text);
                text_free(&t);
                free(text);
            }
        }
    }
    struct text t = {0};
    plot_svg(&(struct plot){"empty", "x", "y", NULL, 0, true}, 480, 280, &t);
    cr_assert_not_null(strstr(t.data, "no data"));
    plot_svg(&(struct plot){"tiny", "x", "y", NULL, 0, true}, 1, 1, &t);
    free(drawn("C", (struct plot){"empty", "x", "y", NULL, 0, true}, 0, 0));
    text_free(&t);
}

Test(plot, ticks_are_round_numbers) {
    static const struct { double lo, hi; bool log; const char *labels[3]; } known[] = {
        {0, 10, false, {">0<", ">5<", ">10<"}}, {0, 20000, false, {">5k<", ">10k<", ">20k<"}}, {0, 3e6, false, {">1M<", ">2M<", ">3M<"}},
        {0, 0.004, false, {">1e-3<", ">2e-3<", ">4e-3<"}}, {1, 10000, true, {">1<", ">100<", ">10k<"}}, {2, 4, true, {">2<", ">3<", ">4<"}},
        {-1, 1, false, {">-1<", ">0<", ">1<"}}, {0, 0.5, false, {">0<", ">0.2<", ">0.4<"}}, {1e-4, 1, true, {">1e-4<", ">1e-3<", ">1<"}},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        double x[2] = {0.1, 0.2}, y[2] = {known[i].lo, known[i].hi};
        const struct series series[] = {{"s", x, y, 2, LOOK_LINE}};
        struct text t = {0};
        plot_svg(&(struct plot){"", "", "", series, 1, known[i].log}, 480, 280, &t);
        for (int k = 0; k < 3; k++) cr_assert(strstr(t.data, known[i].labels[k]), "%s is missing in\n%s", known[i].labels[k], t.data);
        text_free(&t);
    }
}

Test(plot, html_is_escaped) {
    struct text t = {0};
    text_html(&t, "<a href=\"x\">&'\r\n\x01\xff\xc3\xa9\0!", 22);
    cr_assert_str_eq(t.data, "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\n\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd!");
    text_free(&t);
}
