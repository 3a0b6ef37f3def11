// template_value.c: the machine's memory, values, strings whose bytes know where they come from, and their spellings.
//
// A string is immutable and borrowed from the pool, the source or the caller, so slices share bytes. As long as all bytes have
// one origin no marks are kept; a builder that meets the other origin writes them out from then on.
#include "tokenizer/template.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- the machine

struct pool { // chunks, newest first
    struct pool *older;
    size_t used, size;
    union {
        unsigned char byte[1];
        void *align;
        double align_real;
    } data;
};

_Noreturn void machine_fail(struct machine *m, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err_set(m->err, "chat template, line %d: %s", m->line, text);
    longjmp(*m->failed, 1);
}

static void *pool_take(struct machine *m, size_t bytes) {
    if (bytes > m->memory_max - m->memory)
        machine_fail(m, "more than %zu MB of memory are wanted", m->memory_max >> 20);
    bytes = (bytes + 15) & ~(size_t)15;
    struct pool *p = m->pool;
    if (!p || p->size - p->used < bytes) {
        size_t size = bytes > 65536 ? bytes : 65536;
        p = mem_alloc(offsetof(struct pool, data) + size, "chat template");
        *p = (struct pool){.older = m->pool, .size = size};
        m->pool = p;
    }
    void *at = p->data.byte + p->used;
    p->used += bytes;
    m->memory += bytes < m->memory_max - m->memory ? bytes : m->memory_max - m->memory;
    return at;
}

void *machine_alloc(struct machine *m, size_t bytes) { return pool_take(m, bytes); }

void machine_close(struct machine *m) {
    while (m->pool) {
        struct pool *older = m->pool->older;
        mem_free(m->pool);
        m->pool = older;
    }
}

void machine_grow(struct machine *m, void **p, size_t *cap, size_t count, size_t each) {
    size_t more = *cap ? *cap * 2 : 8, bytes;
    if (!size_mul(more, each, &bytes)) machine_fail(m, "a list is too long");
    void *fresh = pool_take(m, bytes);
    if (count) memcpy(fresh, *p, count * each);
    *p = fresh;
    *cap = more;
}

void machine_step(struct machine *m, size_t bytes) {
    m->steps += 1 + bytes / 64;
    if (m->steps > m->steps_max) machine_fail(m, "more than %llu steps are wanted: is there a loop without end?", (unsigned long long)m->steps_max);
}

void machine_enter(struct machine *m) {
    if (++m->depth > m->depth_max) machine_fail(m, "nested deeper than %d", m->depth_max);
}

// ---- the builder

static void build_reserve(struct machine *m, struct builder *b, size_t n, bool marks) {
    if (b->max && n > b->max - b->n) machine_fail(m, "the text grows beyond %zu MB", b->max >> 20);
    if (n > b->cap - b->n) {
        size_t cap = b->cap ? b->cap : 32;
        while (cap - b->n < n) cap *= 2;
        char *p = pool_take(m, cap);
        if (b->n) memcpy(p, b->p, b->n);
        b->p = p;
        if (b->mark) {
            unsigned char *mark = pool_take(m, cap);
            memcpy(mark, b->mark, b->n);
            b->mark = mark;
        }
        b->cap = cap;
    }
    if (marks && !b->mark) {
        b->mark = pool_take(m, b->cap);
        memset(b->mark, b->origin, b->n);
    }
}

void build_bytes(struct machine *m, struct builder *b, const char *p, size_t n, enum origin from) {
    if (!n) return;
    bool mixed = b->n && b->origin != from;
    machine_step(m, n);
    build_reserve(m, b, n, mixed);
    memcpy(b->p + b->n, p, n);
    if (b->mark) memset(b->mark + b->n, from, n);
    b->origin = b->mark ? FROM_BOTH : from;
    b->n += n;
}

void build_string(struct machine *m, struct builder *b, struct value s) {
    if (s.origin != FROM_BOTH) {
        build_bytes(m, b, s.s.p, s.s.n, s.origin);
        return;
    }
    for (size_t at = 0, end; at < s.s.n; at = end) {
        for (end = at + 1; end < s.s.n && s.s.mark[end] == s.s.mark[at]; end++) {}
        build_bytes(m, b, s.s.p + at, end - at, s.s.mark[at] ? FROM_CONTENT : FROM_TEMPLATE);
    }
}

void build_text(struct machine *m, struct builder *b, const char *text) { build_bytes(m, b, text, strlen(text), FROM_TEMPLATE); }

struct value built(const struct builder *b) {
    return (struct value){.kind = V_STRING, .origin = (unsigned char)b->origin, .s = {b->n ? b->p : "", b->n, b->mark}};
}

// ---- making values

struct value value_text(const char *literal) {
    return (struct value){.kind = V_STRING, .s = {literal, strlen(literal), NULL}};
}

struct value value_bytes(struct machine *m, const char *p, size_t n, enum origin from) {
    struct builder b = {0};
    build_bytes(m, &b, p, n, from);
    return built(&b);
}

struct value value_undefined(struct machine *m, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct value v = value_bytes(m, text, strlen(text), FROM_TEMPLATE);
    v.kind = V_UNDEFINED;
    return v;
}

struct value value_list(struct machine *m) {
    return (struct value){.kind = V_LIST, .list = machine_alloc(m, sizeof(struct list))};
}

struct value value_dict(struct machine *m) {
    return (struct value){.kind = V_DICT, .dict = machine_alloc(m, sizeof(struct dict))};
}

void list_add(struct machine *m, struct list *l, struct value v) {
    if (l->n == l->cap) machine_grow(m, (void **)&l->at, &l->cap, l->n, sizeof *l->at);
    l->at[l->n++] = v;
}

struct value *dict_find(struct machine *m, const struct dict *d, struct value key) {
    machine_step(m, d->n * 8);
    if (key.kind == V_LIST && !key.tuple) machine_fail(m, "a list cannot be the key of a dictionary");
    if (key.kind == V_DICT) machine_fail(m, "a dictionary cannot be the key of a dictionary");
    for (size_t i = 0; i < d->n; i++)
        if (value_equal(m, d->at[i].key, key)) return &d->at[i].value;
    return NULL;
}

struct value *dict_named(const struct dict *d, const char *name) {
    for (size_t i = 0; i < d->n; i++)
        if (value_is(d->at[i].key, name)) return &d->at[i].value;
    return NULL;
}

void dict_set(struct machine *m, struct dict *d, struct value key, struct value v) {
    struct value *known = dict_find(m, d, key);
    if (known) {
        *known = v;
        return;
    }
    if (d->n == d->cap) machine_grow(m, (void **)&d->at, &d->cap, d->n, sizeof *d->at);
    d->at[d->n++] = (struct pair){key, v};
}

// Members of a JSON value; strings in it have the given origin, keys too.
struct json_reading {
    struct machine *m;
    struct json j;
    struct text text;
    enum origin from;
};

static struct value json_take(struct json_reading *r) {
    char key[1024];
    int64_t integer;
    double real;
    bool truth;
    struct value v;
    switch (json_peek(&r->j)) {
    case JSON_OBJECT:
        v = value_dict(r->m);
        if (json_object(&r->j))
            while (json_key(&r->j, key, sizeof key)) {
                struct value k = value_bytes(r->m, key, strlen(key), r->from);
                dict_set(r->m, v.dict, k, json_take(r));
            }
        return v;
    case JSON_ARRAY:
        v = value_list(r->m);
        if (json_array(&r->j))
            while (json_item(&r->j)) list_add(r->m, v.list, json_take(r));
        return v;
    case JSON_STRING: return json_string(&r->j, &r->text) ? value_bytes(r->m, r->text.data, r->text.len, r->from) : value_none();
    case JSON_NUMBER: {
        struct json before = r->j;
        if (json_integer(&r->j, &integer)) { // 1.0 and 1e2 are no integers to Python
            for (const char *c = before.at; c < r->j.at; c++)
                if (strchr(".eE", *c)) return value_real((double)integer);
            return value_int(integer);
        }
        r->j = before;
        return json_number(&r->j, &real) ? value_real(real) : value_none();
    }
    case JSON_TRUE:
    case JSON_FALSE: return json_bool(&r->j, &truth) ? value_bool(truth) : value_none();
    default: json_skip(&r->j); return value_none();
    }
}

struct value value_json(struct machine *m, const char *bytes, size_t n, enum origin from, const char *name) {
    struct json_reading *r = machine_alloc(m, sizeof *r); // not a local: it changes behind setjmp
    struct err why;
    jmp_buf *outer = m->failed, here;
    r->m = m;
    r->from = from;
    m->failed = &here; // the text buffer is the one thing outside the pool
    if (setjmp(here)) {
        text_free(&r->text);
        m->failed = outer;
        longjmp(*outer, 1);
    }
    json_open(&r->j, bytes, n);
    struct value v = json_take(r);
    bool good = json_done(&r->j, &why);
    text_free(&r->text);
    m->failed = outer;
    if (!good) machine_fail(m, "the variable %s: %s", name, why.text);
    return v;
}

const char *value_kind_name(struct value v) {
    static const char *const names[] = {"undefined", "none", "a boolean", "an integer", "a number", "a string", "a list",
                                        "a dictionary", "a namespace", "the loop", "a macro", "a function", "a method"};
    return names[v.kind];
}

// ---- strings

bool str_is(struct str s, const char *text) {
    size_t n = strlen(text);
    return s.n == n && !memcmp(s.p, text, n);
}

bool value_is(struct value v, const char *text) { return v.kind == V_STRING && str_is(v.s, text); }

struct value string_part(struct value s, size_t from, size_t to) {
    assert(from <= to && to <= s.s.n);
    s.kind = V_STRING;
    s.s = (struct str){s.s.p + from, to - from, s.s.mark ? s.s.mark + from : NULL};
    return s;
}

struct value string_of(struct machine *m, struct value v) {
    if (v.kind == V_STRING) return v;
    struct builder b = {0};
    build_value(m, &b, v);
    return built(&b);
}

size_t string_find(struct machine *m, struct str in, size_t from, struct str what) {
    if (!what.n) return from;
    const char *at = from < in.n ? memmem(in.p + from, in.n - from, what.p, what.n) : NULL;
    machine_step(m, 4 * ((at ? (size_t)(at - in.p) : in.n) - from + what.n)); // as far as was looked, at 0.4 GB/s
    return at ? (size_t)(at - in.p) : SIZE_MAX;
}

size_t char_size(const char *p, size_t n, uint32_t *code) {
    const unsigned char *u = (const unsigned char *)p;
    size_t size = u[0] < 0x80 ? 1 : utf8_size(p, n);
    switch (size) {
    case 2: *code = (u[0] & 31u) << 6 | (u[1] & 63u); return 2;
    case 3: *code = (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u); return 3;
    case 4: *code = (u[0] & 7u) << 18 | (u[1] & 63u) << 12 | (u[2] & 63u) << 6 | (u[3] & 63u); return 4;
    default: *code = u[0]; return 1;
    }
}

size_t string_length(struct machine *m, struct str s) {
    size_t count = 0;
    machine_step(m, 4 * s.n); // looked at byte by byte
    for (size_t at = 0; at < s.n; count++) at += char_size(s.p + at, s.n - at, &(uint32_t){0});
    return count;
}

size_t string_at(struct str s, size_t character) {
    size_t at = 0;
    for (; character && at < s.n; character--) at += char_size(s.p + at, s.n - at, &(uint32_t){0});
    return at;
}

bool python_space(uint32_t c) { // str.isspace of Python 3
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static bool stripped(const char *p, size_t size, uint32_t code, const struct value *what) {
    if (!what) return python_space(code) && (size > 1 || code < 0x80); // a stray byte is no character
    return memmem(what->s.p, what->s.n, p, size) != NULL;
}

struct value string_strip(struct machine *m, struct value s, const struct value *what, bool left, bool right) {
    size_t from = 0, to = s.s.n;
    uint32_t code;
    while (left && from < to) {
        size_t size = char_size(s.s.p + from, to - from, &code);
        if (!stripped(s.s.p + from, size, code, what)) break;
        from += size;
    }
    while (right && to > from) {
        size_t last = to - 1;
        while (last > from && to - last < 4 && ((unsigned char)s.s.p[last] & 0xC0) == 0x80) last--;
        size_t size = char_size(s.s.p + last, to - last, &code);
        if (last + size != to) last = to - 1, size = 1, code = (unsigned char)s.s.p[last];
        if (!stripped(s.s.p + last, size, code, what)) break;
        to = last;
    }
    size_t looked = s.s.n - (to - from) + 2;
    machine_step(m, what ? looked * what->s.n : looked);
    return string_part(s, from, to);
}

// ---- spellings

// As repr(float) in Python: the shortest digits that read back the same, always with a point or an exponent.
static void build_real(struct machine *m, struct builder *b, double x) {
    char digits[40], out[64];
    if (!isfinite(x)) {
        build_text(m, b, isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = '\0';
        snprintf(out, sizeof out, "%se%+03d", digits, exponent);
    } else {
        snprintf(out, sizeof out, "%.*f", precision - exponent > 1 ? precision - exponent : 1, x);
    }
    build_text(m, b, out);
}

static void build_simple(struct machine *m, struct builder *b, struct value v) {
    char text[32];
    switch (v.kind) {
    case V_NONE: build_text(m, b, "None"); break;
    case V_BOOL: build_text(m, b, v.truth ? "True" : "False"); break;
    case V_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.integer);
        build_text(m, b, text);
        break;
    case V_REAL: build_real(m, b, v.real); break;
    default: machine_fail(m, "%s cannot be written as text", value_kind_name(v));
    }
}

void build_value(struct machine *m, struct builder *b, struct value v) {
    if (v.kind == V_STRING) build_string(m, b, v);
    else if (v.kind != V_UNDEFINED) build_repr(m, b, v);
}

// Python's spelling of a string: single quotes unless there are some and no double ones.
static void build_quoted(struct machine *m, struct builder *b, struct value s) {
    bool single = memchr(s.s.p, '\'', s.s.n), twice = memchr(s.s.p, '"', s.s.n);
    char quote[2] = {single && !twice ? '"' : '\'', '\0'};
    build_text(m, b, quote);
    size_t plain = 0;
    for (size_t at = 0; at < s.s.n; at++) {
        unsigned char c = (unsigned char)s.s.p[at];
        char escape[8];
        if (c == '\\' || c == (unsigned char)quote[0]) snprintf(escape, sizeof escape, "\\%c", c);
        else if (c == '\n' || c == '\r' || c == '\t') snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c < 32 || c == 127) snprintf(escape, sizeof escape, "\\x%02x", c);
        else continue;
        build_string(m, b, string_part(s, plain, at));
        build_bytes(m, b, escape, strlen(escape), s.origin == FROM_TEMPLATE ? FROM_TEMPLATE : FROM_CONTENT);
        plain = at + 1;
    }
    build_string(m, b, string_part(s, plain, s.s.n));
    build_text(m, b, quote);
}

void build_repr(struct machine *m, struct builder *b, struct value v) {
    machine_enter(m);
    if (v.kind == V_STRING) {
        build_quoted(m, b, v);
    } else if (v.kind == V_UNDEFINED) {
        build_text(m, b, "Undefined");
    } else if (v.kind == V_LIST) {
        build_text(m, b, v.tuple ? "(" : "[");
        for (size_t i = 0; i < v.list->n; i++) {
            if (i) build_text(m, b, ", ");
            build_repr(m, b, v.list->at[i]);
        }
        build_text(m, b, !v.tuple ? "]" : v.list->n == 1 ? ",)" : ")");
    } else if (v.kind == V_DICT) {
        build_text(m, b, "{");
        for (size_t i = 0; i < v.dict->n; i++) {
            if (i) build_text(m, b, ", ");
            build_repr(m, b, v.dict->at[i].key);
            build_text(m, b, ": ");
            build_repr(m, b, v.dict->at[i].value);
        }
        build_text(m, b, "}");
    } else {
        build_simple(m, b, v);
    }
    machine_leave(m);
}

static void build_json_string(struct machine *m, struct builder *b, struct value s, bool ascii) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    size_t plain = 0;
    machine_step(m, 4 * s.s.n);
    build_text(m, b, "\"");
    for (size_t at = 0, size; at < s.s.n; at += size) {
        uint32_t code;
        char escape[16];
        size = char_size(s.s.p + at, s.s.n - at, &code);
        const char *known = code && code < 128 ? strchr(from, (int)code) : NULL;
        bool stray = size == 1 && code >= 0x80;
        if (known) snprintf(escape, sizeof escape, "\\%c", to[known - from]);
        else if (stray) snprintf(escape, sizeof escape, ascii ? "\\ufffd" : "\xEF\xBF\xBD");
        else if (code < 32 || (ascii && (code == 127 ? false : code > 126) && code < 0x10000)) snprintf(escape, sizeof escape, "\\u%04x", code);
        else if (ascii && code >= 0x10000)
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + (code & 0x3FF));
        else continue;
        build_string(m, b, string_part(s, plain, at));
        build_bytes(m, b, escape, strlen(escape), s.origin == FROM_TEMPLATE ? FROM_TEMPLATE : FROM_CONTENT);
        plain = at + size;
    }
    build_string(m, b, string_part(s, plain, s.s.n));
    build_text(m, b, "\"");
}

static void json_break(struct machine *m, struct builder *b, const struct json_style *style, int level) {
    if (style->indent < 0) return;
    build_text(m, b, "\n");
    for (int i = 0; i < level * style->indent; i++) build_text(m, b, " ");
}

static void json_between(struct machine *m, struct builder *b, const struct json_style *style, int level) {
    build_string(m, b, style->between);
    json_break(m, b, style, level);
}

static void build_json_dict(struct machine *m, struct builder *b, const struct dict *d, const struct json_style *style, int level) {
    size_t *order = machine_alloc(m, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) { // insertion sort: such dictionaries are small, and it is stable
        size_t at = i;
        for (; style->sorted && at > 0 && value_order(m, d->at[i].key, d->at[order[at - 1]].key) < 0; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    build_text(m, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        const struct pair *p = &d->at[order[i]];
        if (i) json_between(m, b, style, level + 1);
        else json_break(m, b, style, level + 1);
        struct value key = p->key;
        if (key.kind != V_STRING) { // numbers, booleans and none become strings, spelled as JSON spells them
            struct builder k = {0};
            build_json(m, &k, key, style, 0);
            key = built(&k);
        }
        build_json_string(m, b, key, style->ascii);
        build_string(m, b, style->after_key);
        build_json(m, b, p->value, style, level + 1);
    }
    if (d->n) json_break(m, b, style, level);
    build_text(m, b, "}");
}

// As json.dumps.
void build_json(struct machine *m, struct builder *b, struct value v, const struct json_style *style, int level) {
    machine_enter(m);
    machine_step(m, 0);
    switch (v.kind) {
    case V_NONE: build_text(m, b, "null"); break;
    case V_BOOL: build_text(m, b, v.truth ? "true" : "false"); break;
    case V_REAL:
        if (isfinite(v.real)) build_real(m, b, v.real);
        else build_text(m, b, isnan(v.real) ? "NaN" : v.real < 0 ? "-Infinity" : "Infinity");
        break;
    case V_STRING: build_json_string(m, b, v, style->ascii); break;
    case V_LIST:
        build_text(m, b, "[");
        for (size_t i = 0; i < v.list->n; i++) {
            if (i) json_between(m, b, style, level + 1);
            else json_break(m, b, style, level + 1);
            build_json(m, b, v.list->at[i], style, level + 1);
        }
        if (v.list->n) json_break(m, b, style, level);
        build_text(m, b, "]");
        break;
    case V_DICT: build_json_dict(m, b, v.dict, style, level); break;
    case V_UNDEFINED: machine_fail(m, "%.*s, so it has no JSON", (int)v.s.n, v.s.p);
    case V_INT: build_simple(m, b, v); break;
    default: machine_fail(m, "%s has no JSON", value_kind_name(v));
    }
    machine_leave(m);
}
