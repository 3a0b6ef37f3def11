// test_json.c: the JSON reader and writer, and the measuring of UTF-8.
//
// Hostile text is always handed over in a block of exactly its size, so that AddressSanitizer sees a read one byte too
// far. The mutation test prints the seed that failed and makes sure that some texts are still accepted.
#include "core/core.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    "0",
    "-0",
    "1",
    "-1",
    "10",
    "0.5",
    "-0.0",
    "1e5",
    "1E+5",
    "1e-5",
    "123.456e+78",
    "1e308",
    "1e-400",
    "\"\"",
    "true",
    "false",
    "null",
    "[]",
    "{}",
    " [ ] ",
    "\t{\r\n}\n",
    "[1,2,3]",
    "[[],[[]],{}]",
    "{\"a\":1}",
    "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"e\"}",
    "{\"\":0}",
    "{\"a\":1,\"a\":2}",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0041\\u00e9\\u20ac\\ud834\\udd1e\"",
    "\"\\uD800\"",
    "\"\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e\"",
    "\"\x7f\"",
    "\"\xff\"",
    "\xef\xbb\xbf{}",
    "[1.5,-2e3 , \"x\" ,true]",
    "100000000000000000000000000000000000000000",
};

static const char *const bad_texts[] = {
    "",
    " ",
    "\xef\xbb\xbf",
    "tru",
    "True",
    "nul",
    "nulll",
    "truefalse",
    "NaN",
    "Infinity",
    "-Infinity",
    "-",
    "+1",
    ".5",
    "1.",
    "1.e5",
    "1e",
    "1e+",
    "01",
    "-01",
    "00",
    "0x10",
    "1 2",
    "1,",
    "[",
    "]",
    "{",
    "}",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[,]",
    "[1 2]",
    "[1,,2]",
    "[1}",
    "{1:2}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{,\"a\":1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\" 1}",
    "{\"a\"::1}",
    "{a:1}",
    "{'a':1}",
    "{\"a\":1]",
    "{\"a\":1}}",
    "\"",
    "\"abc",
    "\"\\\"",
    "\"\\x41\"",
    "\"\\u\"",
    "\"\\u12\"",
    "\"\\u12g4\"",
    "\"\\U0041\"",
    "\"\\\n\"",
    "\"a\nb\"",
    "\"\t\"",
    "'a'",
    "// x\n1",
    "1 // x",
    "/* */1",
    "[1]x",
    "\xff",
    "[\"a\",\n4\n,1,",
    "{\"a\":1",
    "\\u0031",
    "[1e]",
    "[-]",
    "[\"a\" \"b\"]",
    "\"\x1f\"",
    "{\"a\":\"b",
    "{\"a",
    "{\"a\":t}",
};

Test(json, accepts_what_the_standard_accepts) {
    for (size_t i = 0; i < COUNT_OF(good_texts); i++) {
        struct err err = {""};
        cr_assert(accepts(good_texts[i], strlen(good_texts[i]), &err), "%s: %s", good_texts[i],
                  err.text);
    }
}

Test(json, refuses_what_the_standard_refuses) {
    for (size_t i = 0; i < COUNT_OF(bad_texts); i++) {
        struct err err = {""};
        cr_assert_not(accepts(bad_texts[i], strlen(bad_texts[i]), &err), "%s was accepted",
                      bad_texts[i]);
        cr_assert(strncmp(err.text, "JSON: ", 6) == 0 && strstr(err.text, "line"), "%s: %s",
                  bad_texts[i], err.text);
    }
    cr_assert_not(accepts("1\0", 2, NULL));
    cr_assert_not(accepts("\"a\0b\"", 5, NULL));
    cr_assert_not(accepts("[1,\0 2]", 7, NULL));
}

Test(json, no_beginning_of_a_text_is_a_text) {
    static const char whole[] = "{\"a\": [1.5e+3, true, null, "
                                "\"x\\u00e9\\ud834\\udd1e\\n\xc3\xa9\"], \"b\": {\"c\": false}}";
    cr_assert(accepts(whole, sizeof whole - 1, NULL));
    for (size_t n = 0; n < sizeof whole - 1; n++)
        cr_assert_not(accepts(whole, n, NULL), "%zu bytes", n);
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
            case 0:
                bytes[at] = interesting[rng_below(4, seed, e, sizeof interesting)];
                break;
            case 1:
                memmove(bytes + at, bytes + at + 1, --n - at);
                break;
            default:
                memmove(bytes + at + 1, bytes + at, n++ - at);
                bytes[at] = interesting[rng_below(5, seed, e, sizeof interesting)];
            }
        }
        accepted += accepts(bytes, n, NULL);
    }
    cr_assert(accepted > 1000 && accepted < 25000, "%d of 30000 accepted: the test lost its bite",
              accepted);
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
    static const char text[] = "{ \"name\": \"w\\u00e4\", \"shape\": [2, 3], \"skip\": {\"x\": "
                               "[[1], {}]}, \"on\": true, \"lr\": -2.5e-3 }";
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
        if (!strcmp(key, "name"))
            json_string(&j, &name);
        else if (!strcmp(key, "on"))
            json_bool(&j, &on);
        else if (!strcmp(key, "lr"))
            json_number(&j, &lr);
        else if (!strcmp(key, "shape") && json_array(&j))
            while (json_item(&j)) json_integer(&j, &shape[n++]);
        else
            json_skip(&j);
    }
    struct err err = {""};
    cr_assert(json_done(&j, &err), "%s", err.text);
    cr_assert_str_eq(name.data, "w\xc3\xa4");
    cr_assert(n == 2 && shape[0] == 2 && shape[1] == 3 && on && lr == -2.5e-3);
    cr_assert_eq(json_peek(&j), JSON_END);
    text_free(&name);
}

Test(json, peek_names_every_kind) {
    static const struct {
        const char *text;
        enum json_kind kind;
    } known[] = {
        {" {", JSON_OBJECT}, {"[", JSON_ARRAY}, {"\"", JSON_STRING}, {"-", JSON_NUMBER},
        {"7", JSON_NUMBER},  {"t", JSON_TRUE},  {"f", JSON_FALSE},   {"n", JSON_NULL},
        {"x", JSON_BAD},     {"", JSON_END},    {"  ", JSON_END},    {"}", JSON_BAD},
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
    cr_assert(strstr(err.text, "expected a number") && strstr(err.text, "line 3, column 8"), "%s",
              err.text);
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
    static const struct {
        const char *text, *value;
    } known[] = {
        {"\"\\ud834\\udd1e\"", "\xf0\x9d\x84\x9e"}, // a surrogate pair
        {"\"\\ud834x\"", "\xef\xbf\xbdx"},
        {"\"\\udd1e\"", "\xef\xbf\xbd"}, // lone ones
        {"\"\\ud834\\u0041\"", "\xef\xbf\xbd"
                               "A"},
        {"\"\\ud834\\ud834\\udd1e\"", "\xef\xbf\xbd\xf0\x9d\x84\x9e"},
        {"\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf"},
        {"\"\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
        {"\"a\xff"
         "b\"",
         "a\xef\xbf\xbd"
         "b"},
        {"\"\xc3\"", "\xef\xbf\xbd"},
        {"\"\xed\xa0\x80\"", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\"\xc0\x80\"", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\"\\b\\f\\n\\r\\t\\/\\\\\\\"\"", "\b\f\n\r\t/\\\""},
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
    static const struct {
        const char *text;
        bool good;
        int64_t value;
    } integers[] = {
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"1e3", true, 1000},
        {"2.0", true, 2},
        {"2.5", false, 0},
        {"1e300", false, 0},
        {"-0", true, 0},
        {"1e-1", false, 0},
        {"99999999999999999999999", false, 0},
        {"12e-1", false, 0},
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
    static const struct {
        const char *bytes;
        size_t size;
    } known[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\x80", 0},
        {"\xc1\xbf", 0},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\x9f\xbf", 0},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xed\xa0\x80", 0},
        {"\xef\xbf\xbf", 3},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xe2\x82", 0},
        {"\xf0\x9d\x84", 0},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        cr_assert_eq(utf8_size(known[i].bytes, strlen(known[i].bytes)), known[i].size, "entry %zu",
                     i);
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
    cr_assert_str_eq(t.data, "{\"s\":\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\",\"list\":[0.1,-"
                             "9223372036854775808,{},[]],"
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
    static const struct {
        double x;
        const char *text;
    } short_ones[] = {{0.1, "0.1"},
                      {3, "3"},
                      {1e21, "1e+21"},
                      {-0.0, "-0"},
                      {0.3 - 0.2, "0.09999999999999998"},
                      {1e-5, "1e-05"},
                      {100000, "100000"}};
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
        if (i % 2 == 0)
            cr_assert(back.len == n && memcmp(back.data, bytes, n) == 0, "seed %d", (int)i);
    }
    text_free(&t);
    text_free(&back);
}
