// json.c: a bounded pull reader and a writer.
//
// Reader. The caller drives: it asks for what it expects and gets it or false. The first problem sticks in j->bad and
// stops the cursor there, every later call returns false, so a caller may read a whole document without looking and
// ask json_done once. Invariants:
//  1. start <= at <= end, and no byte at or beyond end is ever read: the text need not be NUL-terminated.
//  2. stack[depth - 1] is the innermost open bracket, '{' or '[', plus MEMBER once it holds a member.
//  3. Nesting is at most 32 and nothing recurses, json_skip included: hostile depth costs nothing.
// The grammar is RFC 8259 to the letter: no leading zeros, no trailing commas, no bare control characters. Only a
// byte order mark in front is forgiven. What is no character (a lone surrogate, a stray byte) reads as U+FFFD.
//
// Writer. Appends to a text; commas, quotes and escapes are its business, so what it writes always reads back.
// Numbers are the shortest of 15, 16 or 17 digits that read back as the same double.
//
// Not here: a tree of values, comments, NaN, numbers longer than NUMBER_CAP characters. The decimal point is that of
// the C locale: programs here set LC_CTYPE at most.
#include "core/core.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MEMBER 0x80
#define NUMBER_CAP 1024

// ---------------------------------------------------------------------------------------------------------------
// UTF-8, for reader and writer.

size_t utf8_size(const char *bytes, size_t n) {
    const unsigned char *b = (const unsigned char *)bytes;
    if (n == 0) return 0;
    if (b[0] < 0x80) return 1;
    size_t size = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    if (b[0] < 0xc2 || b[0] > 0xf4 || n < size) return 0;
    for (size_t i = 1; i < size; i++) {
        if ((b[i] & 0xc0) != 0x80) return 0;
    }
    // The second byte carries what the first cannot exclude: overlong forms, surrogates, beyond U+10FFFF.
    if ((b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xed && b[1] > 0x9f)) return 0;
    if ((b[0] == 0xf0 && b[1] < 0x90) || (b[0] == 0xf4 && b[1] > 0x8f)) return 0;
    return size;
}

static size_t utf8_put(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | (c >> 6));
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | (c >> 12));
        out[1] = (char)(0x80 | ((c >> 6) & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | (c >> 18));
    out[1] = (char)(0x80 | ((c >> 12) & 0x3f));
    out[2] = (char)(0x80 | ((c >> 6) & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

// ---------------------------------------------------------------------------------------------------------------
// Reader.

static bool fail(struct json *j, const char *why) {
    if (!j->bad) j->bad = why;
    return false;
}

static void skip_blanks(struct json *j) {
    while (j->at < j->end && (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r'))
        j->at++;
}

// The next character that is no blank, or 0 at the end. (A NUL in the text is no valid token either.)
static char next_char(struct json *j) {
    skip_blanks(j);
    return j->at < j->end ? *j->at : 0;
}

void json_open(struct json *j, const char *bytes, size_t n) {
    assert(bytes || n == 0);
    if (!bytes) bytes = "";
    *j = (struct json){.start = bytes, .at = bytes, .end = bytes + n};
    if (n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) j->at += 3;
}

enum json_kind json_peek(struct json *j) {
    if (j->bad) return JSON_BAD;
    char c = next_char(j);
    if (j->at == j->end) return JSON_END;
    switch (c) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return c == '-' || (c >= '0' && c <= '9') ? JSON_NUMBER : JSON_BAD;
    }
}

static bool open_bracket(struct json *j, char bracket, const char *expected) {
    if (j->bad) return false;
    if (next_char(j) != bracket) return fail(j, expected);
    if (j->depth == (int)sizeof j->stack) return fail(j, "nesting deeper than 32");
    j->stack[j->depth++] = (unsigned char)bracket;
    j->at++;
    return true;
}

bool json_object(struct json *j) { return open_bracket(j, '{', "expected an object"); }
bool json_array(struct json *j) { return open_bracket(j, '[', "expected an array"); }

// Moves past the comma to the next member of the innermost bracket; false at the closing one, which is consumed.
static bool next_member(struct json *j, char bracket) {
    if (j->bad) return false;
    assert(j->depth > 0 && (j->stack[j->depth - 1] & ~MEMBER) == (unsigned char)bracket);
    unsigned char *top = &j->stack[j->depth - 1];
    char close = bracket == '{' ? '}' : ']';
    char c = next_char(j);
    if (c == close) {
        j->at++;
        j->depth--;
        return false;
    }
    if (*top & MEMBER) {
        if (c != ',')
            return fail(j, bracket == '{' ? "expected ',' or '}'" : "expected ',' or ']'");
        j->at++;
        if (next_char(j) == close) return fail(j, "a comma before the closing bracket");
    }
    *top |= MEMBER;
    return true;
}

bool json_item(struct json *j) { return next_member(j, '['); }

// Where the characters of a string go: a text, a buffer of fixed size, or nowhere.
struct sink {
    struct text *text;
    char *buffer;
    size_t used, cap;
    bool full;
};

static void sink_add(struct sink *s, const char *bytes, size_t n) {
    if (s->text) {
        text_add(s->text, bytes, n);
    } else if (s->buffer) {
        if (n > s->cap - s->used) {
            s->full = true;
            return;
        }
        memcpy(s->buffer + s->used, bytes, n);
        s->used += n;
    }
}

static void sink_rune(struct sink *s, uint32_t c) {
    char bytes[4];
    sink_add(s, bytes, utf8_put(c, bytes));
}

// Four hex digits at p into *out; false when they are not there.
static bool hex4(const char *p, const char *end, uint32_t *out) {
    if (end - p < 4) return false;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = memchr(digits, p[i] >= 'A' && p[i] <= 'F' ? p[i] + 32 : p[i], 16);
        if (!digit) return false;
        *out = *out * 16 + (uint32_t)(digit - digits);
    }
    return true;
}

// The cursor stands on "\u": one escape, or two that form a surrogate pair.
static bool read_u_escape(struct json *j, struct sink *s) {
    uint32_t c, low;
    if (!hex4(j->at + 2, j->end, &c)) return fail(j, "expected four hex digits after \\u");
    j->at += 6;
    if (c >= 0xd800 && c < 0xdc00 && j->end - j->at >= 6 && j->at[0] == '\\' && j->at[1] == 'u' &&
        hex4(j->at + 2, j->end, &low) && low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        j->at += 6;
    }
    sink_rune(s, c >= 0xd800 && c < 0xe000 ? 0xfffd : c);
    return true;
}

static bool read_escape(struct json *j, struct sink *s) {
    if (j->end - j->at < 2) return fail(j, "string without an end");
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (j->at[1] == 'u') return read_u_escape(j, s);
    const char *which = memchr(from, j->at[1], sizeof from - 1);
    if (!which) return fail(j, "unknown escape in a string");
    sink_add(s, &to[which - from], 1);
    j->at += 2;
    return true;
}

static bool read_string(struct json *j, struct sink *s) {
    if (j->bad) return false;
    if (next_char(j) != '"') return fail(j, "expected a string");
    j->at++;
    while (j->at < j->end) {
        unsigned char c = (unsigned char)*j->at;
        if (c == '"') {
            j->at++;
            return true;
        }
        if (c < 0x20) return fail(j, "a bare control character in a string");
        if (c == '\\') {
            if (!read_escape(j, s)) return false;
            continue;
        }
        const char *from = j->at; // a run of plain characters goes in one piece
        while (j->at < j->end && (unsigned char)*j->at >= 0x20 && *j->at != '"' && *j->at != '\\') {
            size_t size = utf8_size(j->at, (size_t)(j->end - j->at));
            if (size == 0) break;
            j->at += size;
        }
        sink_add(s, from, (size_t)(j->at - from));
        if (j->at == from) { // a byte that begins no character
            sink_rune(s, 0xfffd);
            j->at++;
        }
    }
    return fail(j, "string without an end");
}

// key NULL: the key is checked and dropped. length NULL: a key with a NUL in it is refused.
static bool next_key(struct json *j, char *key, size_t cap, size_t *length) {
    if (!next_member(j, '{')) return false;
    struct sink s = {.buffer = key, .cap = key ? cap - 1 : 0};
    if (next_char(j) != '"') return fail(j, "expected a key in quotes");
    const char *begin = j->at;
    if (!read_string(j, &s)) return false;
    if (s.full || (key && !length && memchr(key, 0, s.used))) {
        j->at = begin;
        return fail(j, s.full ? "a key longer than any known one" : "a key with a NUL character");
    }
    if (key) key[s.used] = 0;
    if (length) *length = s.used;
    if (next_char(j) != ':') return fail(j, "expected ':' after the key");
    j->at++;
    return true;
}

bool json_key(struct json *j, char *key, size_t cap) {
    assert(key && cap > 0);
    return next_key(j, key, cap, NULL);
}

bool json_key_bytes(struct json *j, char *key, size_t cap, size_t *n) {
    assert(key && cap > 0 && n);
    return next_key(j, key, cap, n);
}

bool json_string(struct json *j, struct text *out) {
    text_clear(out);
    text_add(out, "", 0);
    return read_string(j, &(struct sink){.text = out});
}

static const char *skip_digits(const char *p, const char *end) {
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

// Checks the grammar of the number at the cursor and returns its end, NULL when it is none.
static const char *number_end(struct json *j, bool *whole) {
    const char *p = j->at, *end = j->end, *from;
    *whole = true;
    if (p < end && *p == '-') p++;
    from = p;
    p = skip_digits(p, end);
    if (p == from || (*from == '0' && p - from > 1)) return NULL;
    if (p < end && *p == '.') {
        *whole = false;
        from = ++p;
        p = skip_digits(p, end);
        if (p == from) return NULL;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        *whole = false;
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        from = p;
        p = skip_digits(p, end);
        if (p == from) return NULL;
    }
    return p;
}

// A number's text, NUL-terminated; the cursor stays in front of it and *after is its end.
static bool number_text(struct json *j, char text[NUMBER_CAP], bool *whole, const char **after) {
    if (j->bad) return false;
    char c = next_char(j);
    if (c != '-' && !(c >= '0' && c <= '9')) return fail(j, "expected a number");
    *after = number_end(j, whole);
    if (!*after) return fail(j, "not a number as JSON writes them");
    size_t n = (size_t)(*after - j->at);
    if (n >= NUMBER_CAP) return fail(j, "a number of more than 1023 characters");
    memcpy(text, j->at, n);
    text[n] = 0;
    return true;
}

bool json_number(struct json *j, double *out) {
    char text[NUMBER_CAP];
    bool whole;
    const char *after;
    if (!number_text(j, text, &whole, &after)) return false;
    double x = strtod(text, NULL);
    if (!isfinite(x)) return fail(j, "number out of range");
    j->at = after;
    *out = x;
    return true;
}

bool json_integer(struct json *j, int64_t *out) {
    char text[NUMBER_CAP];
    bool whole;
    const char *after;
    if (!number_text(j, text, &whole, &after)) return false;
    int64_t value;
    if (whole) {
        errno = 0;
        long long x = strtoll(text, NULL, 10);
        if (errno == ERANGE) return fail(j, "integer out of range");
        value = x;
    } else { // 1e3 and 2.0 are integers too, as far as a double is exact
        double x = strtod(text, NULL);
        if (!(fabs(x) <= 9007199254740992.0)) return fail(j, "integer out of range");
        if (x != floor(x)) return fail(j, "expected an integer");
        value = (int64_t)x;
    }
    j->at = after;
    *out = value;
    return true;
}

static bool read_word(struct json *j, const char *word) {
    size_t n = strlen(word);
    if (j->bad || (size_t)(j->end - j->at) < n || memcmp(j->at, word, n) != 0) return false;
    j->at += n;
    return true;
}

bool json_bool(struct json *j, bool *out) {
    if (j->bad) return false;
    skip_blanks(j);
    if (read_word(j, "true")) {
        *out = true;
    } else if (read_word(j, "false")) {
        *out = false;
    } else {
        return fail(j, "expected true or false");
    }
    return true;
}

// One value that has no members, or the opening bracket of one that has.
static bool skip_one(struct json *j) {
    char text[NUMBER_CAP];
    bool ignored;
    const char *after;
    switch (json_peek(j)) {
    case JSON_OBJECT:
        return json_object(j);
    case JSON_ARRAY:
        return json_array(j);
    case JSON_STRING:
        return read_string(j, &(struct sink){.text = NULL});
    case JSON_TRUE:
    case JSON_FALSE:
        return json_bool(j, &ignored);
    case JSON_NULL:
        return read_word(j, "null") || fail(j, "expected null");
    case JSON_NUMBER:
        if (!number_text(j, text, &ignored, &after)) return false;
        j->at = after;
        return true;
    default:
        return fail(j, "expected a value");
    }
}

bool json_skip(struct json *j) {
    int outer = j->depth;
    if (!skip_one(j)) return false;
    while (j->depth > outer) { // one member of the innermost bracket per turn
        bool object = (j->stack[j->depth - 1] & ~MEMBER) == '{';
        if (object ? next_key(j, NULL, 0, NULL) : next_member(j, '[')) skip_one(j);
        if (j->bad) return false;
    }
    return true;
}

// What stands at the cursor, up to 24 bytes, fit for a message.
static void describe_place(const struct json *j, char out[32]) {
    size_t n = 0;
    const char *p = j->at;
    while (p < j->end && n < 24) {
        size_t size = utf8_size(p, (size_t)(j->end - p));
        bool plain = size > 0 && (unsigned char)*p >= 0x20 && *p != 0x7f;
        if (!plain) out[n++] = size == 1 && (*p == '\n' || *p == '\t') ? ' ' : '?';
        for (size_t i = 0; plain && i < size; i++) out[n++] = p[i];
        p += size ? size : 1;
    }
    out[n] = 0;
}

bool json_done(struct json *j, struct err *err) {
    const char *why = j->bad;
    if (!why) {
        skip_blanks(j);
        const char *first = j->start;
        while (first < j->at && strchr(" \t\r\n\xef\xbb\xbf", *first)) first++;
        if (j->depth > 0) {
            why = "an object or array that was not read to its end";
        } else if (j->at < j->end) {
            why = "more text after the value";
        } else if (first == j->end) {
            why = "expected a value";
        } else {
            return true;
        }
        j->bad = why;
    }
    long line = 1, column = 1;
    for (const char *p = j->start; p < j->at; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    char place[32];
    describe_place(j, place);
    if (!*place)
        return err_set(err, "JSON: %s, but the text ends at line %ld, column %ld", why, line,
                       column);
    return err_set(err, "JSON: %s at line %ld, column %ld: %s", why, line, column, place);
}

// ---------------------------------------------------------------------------------------------------------------
// Writer.

void json_out_open(struct json_out *o, struct text *to) {
    assert(to);
    *o = (struct json_out){.to = to};
}

static void write_string(struct text *to, const char *bytes, size_t n) {
    text_str(to, "\"");
    for (size_t i = 0; i < n;) {
        size_t from = i, size = 1;
        while (i < n && (unsigned char)bytes[i] >= 0x20 && bytes[i] != '"' && bytes[i] != '\\') {
            size = utf8_size(bytes + i, n - i);
            if (size == 0) break;
            i += size;
        }
        text_add(to, bytes + from, i - from);
        if (i == n) break;
        static const char special[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
        const char *which = memchr(special, bytes[i], sizeof special - 1);
        if (size == 0) {
            text_str(to, "\xef\xbf\xbd");
        } else if (which) {
            text_fmt(to, "\\%c", letter[which - special]);
        } else {
            text_fmt(to, "\\u%04x", (unsigned)(unsigned char)bytes[i]);
        }
        i++;
    }
    text_str(to, "\"");
}

// The comma before, and the key of, whatever comes next.
static void begin_value(struct json_out *o, const char *key) {
    assert(o->depth < (int)COUNT_OF(o->comma));
    assert(o->depth > 0 || (!o->comma[0] && !key)); // one value at the top
    if (o->comma[o->depth]) text_str(o->to, ",");
    o->comma[o->depth] = true;
    if (!key) return;
    write_string(o->to, key, strlen(key));
    text_str(o->to, ":");
}

static void open_value(struct json_out *o, const char *key, const char *bracket) {
    begin_value(o, key);
    text_str(o->to, bracket);
    o->depth++;
    assert(o->depth < (int)COUNT_OF(o->comma));
    o->comma[o->depth] = false;
}

void json_out_object(struct json_out *o, const char *key) { open_value(o, key, "{"); }
void json_out_array(struct json_out *o, const char *key) { open_value(o, key, "["); }

void json_out_close(struct json_out *o, char bracket) {
    assert(o->depth > 0 && (bracket == '}' || bracket == ']'));
    text_add(o->to, &bracket, 1);
    o->depth--;
}

void json_out_string(struct json_out *o, const char *key, const char *bytes, size_t n) {
    begin_value(o, key);
    write_string(o->to, bytes, n);
}

void json_out_number(struct json_out *o, const char *key, double x) {
    if (!isfinite(x)) {
        json_out_null(o, key);
        return;
    }
    begin_value(o, key);
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    text_str(o->to, text);
}

void json_out_integer(struct json_out *o, const char *key, int64_t x) {
    begin_value(o, key);
    text_fmt(o->to, "%lld", (long long)x);
}

void json_out_bool(struct json_out *o, const char *key, bool x) {
    begin_value(o, key);
    text_str(o->to, x ? "true" : "false");
}

void json_out_null(struct json_out *o, const char *key) {
    begin_value(o, key);
    text_str(o->to, "null");
}
