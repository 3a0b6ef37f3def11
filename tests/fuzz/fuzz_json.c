// The JSON reader and writer. A text is walked value by value and printed; what was printed is skipped whole, walked and printed
// again, which must give the same bytes. Then the text is read by calls that its own bytes choose: wrong questions get
// false and a sentence, never more.
#include "tests/fuzz/files.h"

#include <math.h>
#include <string.h>

enum { KEY = 64 };

// Copies the value at the cursor; false when the reader or the writer's depth ends it.
static bool copy(struct json *j, struct json_out *o, const char *key) {
    struct text s = {0};
    double x;
    int64_t i;
    bool b, good = true;
    char member[KEY];
    switch (json_peek(j)) {
    case JSON_OBJECT:
        if (o->depth > 28 || !json_object(j)) return false;
        json_out_object(o, key);
        while (good && json_key(j, member, sizeof member)) good = copy(j, o, member);
        json_out_close(o, '}');
        return good && !j->bad;
    case JSON_ARRAY:
        if (o->depth > 28 || !json_array(j)) return false;
        json_out_array(o, key);
        while (good && json_item(j)) good = copy(j, o, NULL);
        json_out_close(o, ']');
        return good && !j->bad;
    case JSON_STRING:
        good = json_string(j, &s);
        if (good) json_out_string(o, key, s.data, s.len);
        text_free(&s);
        return good;
    case JSON_NUMBER: {
        struct json before = *j;
        if (json_integer(j, &i)) {
            json_out_integer(o, key, i);
            return true;
        }
        *j = before;
        if (!json_number(j, &x)) return false;
        must(isfinite(x), "numbers are finite");
        json_out_number(o, key, x);
        return true;
    }
    case JSON_TRUE:
    case JSON_FALSE:
        if (!json_bool(j, &b)) return false;
        json_out_bool(o, key, b);
        return true;
    case JSON_NULL:
        if (!json_skip(j)) return false;
        json_out_null(o, key);
        return true;
    default:
        return false;
    }
}

static bool print(const char *bytes, size_t n, struct text *to) {
    struct json j;
    struct json_out o;
    struct err err = {""};
    json_open(&j, bytes, n);
    json_out_open(&o, to);
    bool good = copy(&j, &o, NULL) && json_done(&j, &err);
    if (j.bad) must(!json_done(&j, &err) && strlen(err.text) > 8, "a bad text has a sentence");
    return good;
}

static bool skips(const char *bytes, size_t n) {
    struct json j;
    struct err err = {""};
    json_open(&j, bytes, n);
    json_skip(&j);
    bool good = json_done(&j, &err);
    must_tell(good, &err);
    return good;
}

static void asked_anything(const char *bytes, size_t n) {
    struct json j;
    struct text s = {0};
    char key[8];
    double x;
    int64_t integer;
    bool b;
    json_open(&j, bytes + n / 4, n - n / 4);
    for (size_t i = 0; i < n / 4; i++) {
        unsigned char innermost = j.depth ? j.stack[j.depth - 1] & 0x7f : 0;
        switch ((unsigned char)bytes[i] % 10) {
        case 0: json_object(&j); break;
        case 1: json_array(&j); break;
        case 2: if (innermost == '{') json_key(&j, key, sizeof key); break;
        case 3: if (innermost == '[') json_item(&j); break;
        case 4: json_string(&j, &s); break;
        case 5: json_number(&j, &x); break;
        case 6: json_integer(&j, &integer); break;
        case 7: json_bool(&j, &b); break;
        case 8: json_skip(&j); break;
        default: json_peek(&j);
        }
        must(j.start <= j.at && j.at <= j.end && j.depth >= 0 && j.depth <= 32, "the cursor is inside the text");
    }
    struct err err = {""};
    must_tell(json_done(&j, &err), &err);
    text_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct text once = {0}, twice = {0};
    bool good = print((const char *)bytes, n, &once);
    bool skipped = skips((const char *)bytes, n);
    if (good) {
        must(skipped, "what can be read can be skipped");
        must(skips(once.data, once.len) && print(once.data, once.len, &twice), "what is written can be read");
        must(once.len == twice.len && !memcmp(once.data, twice.data, once.len), "printing again changes nothing");
    }
    asked_anything((const char *)bytes, n);
    text_free(&once);
    text_free(&twice);
    return 0;
}
