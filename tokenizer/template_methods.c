// template_methods.c: what a template may call on strings, lists and dictionaries, and the functions it finds.
//
// Nothing here changes a list or a dictionary: as in the sandbox that transformers uses, those methods are known by
// name and refused.
#include "tokenizer/template.h"

#include <stdlib.h>
#include <string.h>

static void want(struct machine *m, const struct call *c, struct value v, enum value_kind kind, const char *what) {
    if (v.kind != kind) machine_fail(m, "%s wants %s, found %s", c->what, what, value_kind_name(v));
}

// ---- case, for texts: letters of ASCII, Latin-1, Greek and Cyrillic; scripts without case pass; others are refused

enum letter_case { UPPER, LOWER };

static uint32_t cased(struct machine *m, uint32_t c, enum letter_case to) {
    bool up = to == UPPER;
    if (c < 0x80) return up ? (c >= 'a' && c <= 'z' ? c - 32 : c) : c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (c < 0xC0 && c != 0xB5) return c;
    if (c == 0xD7 || c == 0xF7 || (c == 0xDF && !up)) return c;
    if (c >= 0xC0 && c < 0xFF && c != 0xDF) return up ? (c >= 0xE0 ? c - 32 : c) : c < 0xE0 ? c + 32 : c;
    if (c >= 0x391 && c <= 0x3A9 && (up || c != 0x3A3)) return up ? c : c + 32;
    if (c >= 0x3B1 && c <= 0x3C9 && (!up || c != 0x3C2)) return up ? c - 32 : c;
    if (c >= 0x400 && c < 0x410) return up ? c : c + 80;
    if (c >= 0x410 && c < 0x450) return up ? (c >= 0x430 ? c - 32 : c) : c < 0x430 ? c + 32 : c;
    if (c >= 0x450 && c < 0x460) return up ? c - 80 : c;
    bool caseless = (c >= 0x5D0 && c < 0x1000) || (c >= 0x2000 && c < 0x2100) || (c >= 0x2190 && c < 0x2400) || (c >= 0x2500 && c < 0x2C00) ||
                    (c >= 0x2E80 && c < 0xA640) || (c >= 0xAC00 && c < 0xD800) || (c >= 0xF900 && c < 0xFB00) || c == 0xFE0F ||
                    (c >= 0xFF00 && c < 0xFF21) || (c >= 0xFF5B && c < 0x10000) ||
                    (c >= 0x1F000 && c < 0x1FB00) || (c >= 0x20000 && c < 0x32000);
    if (!caseless) machine_fail(m, "upper and lower case of U+%04X are not known here", (unsigned)c);
    return c;
}

static void build_cased(struct machine *m, struct builder *b, struct value s, size_t at, size_t size, enum letter_case to) {
    uint32_t code;
    char out[4];
    char_size(s.s.p + at, size, &code);
    if (size == 1 && code >= 0x80) { // a stray byte
        build_string(m, b, string_part(s, at, at + 1));
        return;
    }
    uint32_t c = cased(m, code, to);
    if (c == code) {
        build_string(m, b, string_part(s, at, at + size));
        return;
    }
    if (c < 0x80) out[0] = (char)c; // a letter keeps its length: the ranges above do not cross one
    else out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63));
    enum origin from = s.origin == FROM_BOTH ? (s.s.mark[at] ? FROM_CONTENT : FROM_TEMPLATE) : (enum origin)s.origin;
    build_bytes(m, b, out, c < 0x80 ? 1 : 2, from);
}

static bool letter(uint32_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c != 0xD7 && c != 0xF7 && !python_space(c));
}

// rule: u upper, l lower, c capitalize, t title as Python does, T title as Jinja's filter does.
struct value string_cased(struct machine *m, struct value s, char rule) {
    struct builder b = {0};
    bool start = true;
    for (size_t at = 0, size; at < s.s.n; at += size) {
        uint32_t code;
        size = char_size(s.s.p + at, s.s.n - at, &code);
        machine_step(m, 0);
        build_cased(m, &b, s, at, size, rule == 'u' || (rule != 'l' && start) ? UPPER : LOWER);
        if (rule == 't') start = !letter(code);
        else if (rule == 'T') start = python_space(code) || (code < 128 && code && strchr("-({[<", (int)code));
        else start = false;
    }
    return built(&b);
}

// ---- methods of strings

static struct value strip(struct machine *m, struct value self, struct call *c, bool left, bool right) {
    struct value *what = call_take(c, 0, NULL);
    if (what && what->kind == V_NONE) what = NULL;
    if (what) want(m, c, *what, V_STRING, "a string");
    return string_strip(m, self, what, left, right);
}

static struct value s_strip(struct machine *m, struct value self, struct call *c) { return strip(m, self, c, true, true); }
static struct value s_lstrip(struct machine *m, struct value self, struct call *c) { return strip(m, self, c, true, false); }
static struct value s_rstrip(struct machine *m, struct value self, struct call *c) { return strip(m, self, c, false, true); }

static int64_t max_split(struct machine *m, struct call *c, const char *name, size_t index) {
    const struct value *v = call_take(c, index, name);
    if (!v) return INT64_MAX;
    want(m, c, *v, V_INT, "an integer");
    return v->integer < 0 ? INT64_MAX : v->integer;
}

static struct value split_blanks(struct machine *m, struct value self, int64_t most) {
    struct value l = value_list(m);
    for (self = string_strip(m, self, NULL, true, false); self.s.n; most--) {
        size_t at = 0;
        uint32_t code;
        while (at < self.s.n && most > 0) {
            size_t size = char_size(self.s.p + at, self.s.n - at, &code);
            if (python_space(code)) break;
            at += size;
        }
        if (most == 0) {
            list_add(m, l.list, string_strip(m, self, NULL, false, true));
            break;
        }
        machine_step(m, at);
        list_add(m, l.list, string_part(self, 0, at));
        self = string_strip(m, string_part(self, at, self.s.n), NULL, true, false);
    }
    return l;
}

static struct value s_split(struct machine *m, struct value self, struct call *c) {
    const struct value *by = call_take(c, 0, "sep");
    int64_t most = max_split(m, c, "maxsplit", 1);
    if (!by || by->kind == V_NONE) return split_blanks(m, self, most);
    want(m, c, *by, V_STRING, "a string");
    if (!by->s.n) machine_fail(m, "split by an empty string has no meaning");
    struct value l = value_list(m);
    size_t from = 0;
    for (; most > 0; most--) {
        size_t at = string_find(m, self.s, from, by->s);
        if (at == SIZE_MAX) break;
        list_add(m, l.list, string_part(self, from, at));
        from = at + by->s.n;
    }
    list_add(m, l.list, string_part(self, from, self.s.n));
    return l;
}

// The last place of what in s[0..end).
static size_t find_last(struct machine *m, struct str s, size_t end, struct str what) {
    machine_step(m, end);
    for (size_t at = end >= what.n ? end - what.n + 1 : 0; at-- > 0;) {
        if (what.n && s.p[at] != what.p[0]) continue;
        machine_step(m, what.n);
        if (!memcmp(s.p + at, what.p, what.n)) return at;
    }
    return SIZE_MAX;
}

static struct value s_rsplit(struct machine *m, struct value self, struct call *c) {
    const struct value by = call_need(m, c, 0, "sep");
    int64_t most = max_split(m, c, "maxsplit", 1);
    want(m, c, by, V_STRING, "a string");
    if (!by.s.n) machine_fail(m, "rsplit by an empty string has no meaning");
    struct value back = value_list(m), l = value_list(m);
    size_t end = self.s.n;
    for (; most > 0; most--) {
        size_t at = find_last(m, self.s, end, by.s);
        if (at == SIZE_MAX) break;
        list_add(m, back.list, string_part(self, at + by.s.n, end));
        end = at;
    }
    list_add(m, back.list, string_part(self, 0, end));
    for (size_t i = back.list->n; i-- > 0;) list_add(m, l.list, back.list->at[i]);
    return l;
}

struct value string_lines(struct machine *m, struct value self) {
    struct value l = value_list(m);
    size_t from = 0;
    for (size_t at = 0, size; at < self.s.n; at += size) {
        uint32_t code;
        size = char_size(self.s.p + at, self.s.n - at, &code);
        if ((size == 1 && code >= 0x80) || !((code >= 10 && code <= 13) || (code >= 0x1C && code <= 0x1E) || code == 0x85 || code == 0x2028 || code == 0x2029))
            continue;
        list_add(m, l.list, string_part(self, from, at));
        if (code == '\r' && at + 1 < self.s.n && self.s.p[at + 1] == '\n') size = 2;
        from = at + size;
    }
    if (from < self.s.n) list_add(m, l.list, string_part(self, from, self.s.n));
    machine_step(m, self.s.n);
    return l;
}

static struct value s_splitlines(struct machine *m, struct value self, struct call *c) {
    (void)c;
    return string_lines(m, self);
}

static bool ends_with(struct machine *m, struct call *c, struct value self, struct value what, bool start) {
    if (what.kind == V_LIST && what.tuple) {
        for (size_t i = 0; i < what.list->n; i++)
            if (ends_with(m, c, self, what.list->at[i], start)) return true;
        return false;
    }
    want(m, c, what, V_STRING, "a string or a tuple of strings");
    return what.s.n <= self.s.n && !memcmp(self.s.p + (start ? 0 : self.s.n - what.s.n), what.s.p, what.s.n);
}

static struct value s_startswith(struct machine *m, struct value self, struct call *c) {
    return value_bool(ends_with(m, c, self, call_need(m, c, 0, "prefix"), true));
}

static struct value s_endswith(struct machine *m, struct value self, struct call *c) {
    return value_bool(ends_with(m, c, self, call_need(m, c, 0, "suffix"), false));
}

static struct value s_removeprefix(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "prefix");
    return ends_with(m, c, self, what, true) && what.kind == V_STRING ? string_part(self, what.s.n, self.s.n) : self;
}

static struct value s_removesuffix(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "suffix");
    return ends_with(m, c, self, what, false) && what.kind == V_STRING ? string_part(self, 0, self.s.n - what.s.n) : self;
}

static struct value s_upper(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, self, 'u'); }
static struct value s_lower(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, self, 'l'); }
static struct value s_title(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, self, 't'); }
static struct value s_capitalize(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, self, 'c'); }

struct value string_replace(struct machine *m, struct value self, struct call *c) {
    struct value from = call_need(m, c, 0, "old"), to = call_need(m, c, 1, "new");
    int64_t most = max_split(m, c, "count", 2);
    want(m, c, from, V_STRING, "a string");
    want(m, c, to, V_STRING, "a string");
    if (!from.s.n) machine_fail(m, "replacing an empty string is not known here");
    struct builder b = {0};
    size_t at = 0;
    for (; most > 0; most--) {
        size_t found = string_find(m, self.s, at, from.s);
        if (found == SIZE_MAX) break;
        build_string(m, &b, string_part(self, at, found));
        build_string(m, &b, to);
        at = found + from.s.n;
    }
    if (at == 0) return self;
    build_string(m, &b, string_part(self, at, self.s.n));
    return built(&b);
}

static struct value found_at(struct machine *m, struct value self, size_t at) {
    return value_int(at == SIZE_MAX ? -1 : (int64_t)string_length(m, (struct str){self.s.p, at, NULL}));
}

static struct value s_find(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "sub");
    want(m, c, what, V_STRING, "a string");
    return found_at(m, self, string_find(m, self.s, 0, what.s));
}

static struct value s_rfind(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "sub");
    want(m, c, what, V_STRING, "a string");
    return found_at(m, self, find_last(m, self.s, self.s.n, what.s));
}

static struct value s_count(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "sub");
    want(m, c, what, V_STRING, "a string");
    if (!what.s.n) return value_int((int64_t)string_length(m, self.s) + 1);
    int64_t count = 0;
    for (size_t at = 0; (at = string_find(m, self.s, at, what.s)) != SIZE_MAX; at += what.s.n) count++;
    return value_int(count);
}

static struct value s_join(struct machine *m, struct value self, struct call *c) {
    const struct list *l = value_iterate(m, call_need(m, c, 0, "iterable"));
    struct builder b = {0};
    for (size_t i = 0; i < l->n; i++) {
        want(m, c, l->at[i], V_STRING, "strings");
        if (i) build_string(m, &b, self);
        build_string(m, &b, l->at[i]);
    }
    return built(&b);
}

static struct value s_isdigit(struct machine *m, struct value self, struct call *c) {
    (void)c;
    machine_step(m, self.s.n);
    for (size_t i = 0; i < self.s.n; i++) {
        if ((unsigned char)self.s.p[i] >= 0x80) machine_fail(m, "isdigit of letters beyond ASCII is not known here");
        if (self.s.p[i] < '0' || self.s.p[i] > '9') return value_bool(false);
    }
    return value_bool(self.s.n > 0);
}

static struct value s_isspace(struct machine *m, struct value self, struct call *c) {
    (void)c;
    return value_bool(self.s.n > 0 && string_strip(m, self, NULL, true, false).s.n == 0);
}

// "{} {1} {name}".format(...), without conversions, formats and attributes.
static struct value s_format(struct machine *m, struct value self, struct call *c) {
    struct builder b = {0};
    size_t next = 0, at = 0;
    while (at < self.s.n) {
        size_t from = at;
        while (at < self.s.n && self.s.p[at] != '{' && self.s.p[at] != '}') at++;
        build_string(m, &b, string_part(self, from, at));
        if (at == self.s.n) break;
        char twin = at + 1 < self.s.n ? self.s.p[at + 1] : ' ';
        if (twin == self.s.p[at]) {
            build_string(m, &b, string_part(self, at, at + 1));
            at += 2;
            continue;
        }
        char name[64];
        size_t n = 0;
        for (at++; at < self.s.n && self.s.p[at] != '}' && n + 1 < sizeof name; at++) name[n++] = self.s.p[at];
        name[n] = '\0';
        if (at >= self.s.n || self.s.p[at++] != '}' || strpbrk(name, "!:.[{ ")) machine_fail(m, "format: the field {%s is not known here", name);
        size_t digits = strspn(name, "0123456789");
        size_t index = !n ? next++ : digits == n && n < 4 ? (size_t)strtol(name, NULL, 10) : SIZE_MAX;
        build_value(m, &b, call_need(m, c, index, n ? name : "of the next field"));
    }
    return built(&b);
}

// ---- methods of dictionaries and lists

static struct value d_get(struct machine *m, struct value self, struct call *c) {
    struct value key = call_need(m, c, 0, "key");
    const struct value *instead = call_take(c, 1, NULL), *v = dict_find(m, self.dict, key);
    return v ? *v : instead ? *instead : value_none();
}

struct value dict_items(struct machine *m, const struct dict *d) {
    struct value l = value_list(m);
    for (size_t i = 0; i < d->n; i++) {
        struct value two = value_list(m);
        two.tuple = true;
        list_add(m, two.list, d->at[i].key);
        list_add(m, two.list, d->at[i].value);
        list_add(m, l.list, two);
    }
    return l;
}

static struct value d_items(struct machine *m, struct value self, struct call *c) { return (void)c, dict_items(m, self.dict); }

static struct value d_keys(struct machine *m, struct value self, struct call *c) {
    (void)c;
    return (struct value){.kind = V_LIST, .list = value_iterate(m, self)};
}

static struct value d_values(struct machine *m, struct value self, struct call *c) {
    (void)c;
    struct value l = value_list(m);
    for (size_t i = 0; i < self.dict->n; i++) list_add(m, l.list, self.dict->at[i].value);
    return l;
}

static struct value d_copy(struct machine *m, struct value self, struct call *c) {
    (void)c;
    struct value d = value_dict(m);
    for (size_t i = 0; i < self.dict->n; i++) dict_set(m, d.dict, self.dict->at[i].key, self.dict->at[i].value);
    return d;
}

static struct value l_index(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "value");
    for (size_t i = 0; i < self.list->n; i++)
        if (value_equal(m, self.list->at[i], what)) return value_int((int64_t)i);
    machine_fail(m, "index: the list has no such item");
}

static struct value l_count(struct machine *m, struct value self, struct call *c) {
    struct value what = call_need(m, c, 0, "value");
    int64_t count = 0;
    for (size_t i = 0; i < self.list->n; i++) count += value_equal(m, self.list->at[i], what);
    return value_int(count);
}

// ---- functions

static struct value f_raise(struct machine *m, struct value self, struct call *c) {
    (void)self;
    struct value why = string_of(m, call_need(m, c, 0, "message"));
    machine_fail(m, "the template refuses this conversation: %.*s", (int)(why.s.n < 300 ? why.s.n : 300), why.s.p);
}

static struct value f_strftime(struct machine *m, struct value self, struct call *c) {
    (void)self;
    struct value format = call_need(m, c, 0, "format");
    char pattern[128], text[512];
    want(m, c, format, V_STRING, "a string");
    if (format.s.n >= sizeof pattern || memchr(format.s.p, '\0', format.s.n)) machine_fail(m, "strftime_now: the format is too long");
    memcpy(pattern, format.s.p, format.s.n);
    pattern[format.s.n] = '\0';
    for (const char *p = pattern; *p; p++)
        if (*p == '%') {
            if (*++p == '-') p++;
            if (!*p || !strchr("aAbBdHIjmMpSyYwUWcxXDFTRe%", *p)) machine_fail(m, "strftime_now: the format \"%s\" is not known here", pattern);
        }
    if (!format.s.n) return format;
    size_t n = strftime(text, sizeof text, pattern, &m->now);
    return value_bytes(m, text, n, FROM_TEMPLATE);
}

static struct value f_range(struct machine *m, struct value self, struct call *c) {
    (void)self;
    struct value given[3] = {call_need(m, c, 0, "stop")};
    size_t n = 1;
    for (const struct value *v; n < 3 && (v = call_take(c, n, NULL)); n++) given[n] = *v;
    for (size_t i = 0; i < n; i++) want(m, c, given[i], V_INT, "integers");
    int64_t from = n > 1 ? given[0].integer : 0, to = given[n > 1].integer, step = n > 2 ? given[2].integer : 1;
    if (step == 0) machine_fail(m, "range: the step is zero");
    struct value l = value_list(m);
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        if (l.list->n == 100000) machine_fail(m, "range: more than 100000 numbers");
        list_add(m, l.list, value_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return l;
}

static struct value f_dict(struct machine *m, struct value self, struct call *c) {
    (void)self;
    struct value d = value_dict(m);
    const struct value *from = call_take(c, 0, NULL);
    if (from) want(m, c, *from, V_DICT, "a dictionary");
    for (size_t i = 0; from && i < from->dict->n; i++) dict_set(m, d.dict, from->dict->at[i].key, from->dict->at[i].value);
    for (size_t i = 0; i < c->n_named; i++) dict_set(m, d.dict, c->named[i].key, c->named[i].value);
    c->named_taken = c->n_named;
    return d;
}

static struct value f_namespace(struct machine *m, struct value self, struct call *c) {
    struct value space = f_dict(m, self, c);
    space.kind = V_NAMESPACE;
    return space;
}

// ---- tables

static const char changes[] = "would change it, which a template may not do", unknown[] = "is not known here";

const struct builtin template_functions[] = {
    {"raise_exception", f_raise, NULL}, {"strftime_now", f_strftime, NULL}, {"range", f_range, NULL}, {"dict", f_dict, NULL},
    {"namespace", f_namespace, NULL},   {"lipsum", NULL, unknown},          {"cycler", NULL, unknown}, {"joiner", NULL, unknown},
    {NULL, NULL, NULL},
};
const struct builtin template_string_methods[] = {
    {"strip", s_strip, NULL}, {"lstrip", s_lstrip, NULL}, {"rstrip", s_rstrip, NULL}, {"split", s_split, NULL},
    {"rsplit", s_rsplit, NULL}, {"splitlines", s_splitlines, NULL}, {"startswith", s_startswith, NULL}, {"endswith", s_endswith, NULL},
    {"removeprefix", s_removeprefix, NULL}, {"removesuffix", s_removesuffix, NULL}, {"upper", s_upper, NULL}, {"lower", s_lower, NULL},
    {"title", s_title, NULL}, {"capitalize", s_capitalize, NULL}, {"replace", string_replace, NULL}, {"find", s_find, NULL},
    {"rfind", s_rfind, NULL}, {"count", s_count, NULL}, {"join", s_join, NULL}, {"isdigit", s_isdigit, NULL},
    {"isspace", s_isspace, NULL}, {"format", s_format, NULL}, {"index", NULL, unknown}, {"partition", NULL, unknown},
    {"rpartition", NULL, unknown}, {"zfill", NULL, unknown}, {"ljust", NULL, unknown}, {"rjust", NULL, unknown},
    {"center", NULL, unknown}, {"isalpha", NULL, unknown}, {"isalnum", NULL, unknown}, {"isupper", NULL, unknown},
    {"islower", NULL, unknown}, {"isnumeric", NULL, unknown}, {"isdecimal", NULL, unknown}, {"encode", NULL, unknown},
    {"casefold", NULL, unknown}, {"swapcase", NULL, unknown}, {"expandtabs", NULL, unknown}, {"translate", NULL, unknown},
    {"format_map", NULL, unknown}, {NULL, NULL, NULL},
};
const struct builtin template_dict_methods[] = {
    {"get", d_get, NULL}, {"items", d_items, NULL}, {"keys", d_keys, NULL}, {"values", d_values, NULL}, {"copy", d_copy, NULL},
    {"pop", NULL, changes}, {"popitem", NULL, changes}, {"update", NULL, changes}, {"setdefault", NULL, changes}, {"clear", NULL, changes},
    {"fromkeys", NULL, unknown}, {NULL, NULL, NULL},
};
const struct builtin template_list_methods[] = {
    {"index", l_index, NULL}, {"count", l_count, NULL}, {"append", NULL, changes}, {"extend", NULL, changes}, {"insert", NULL, changes},
    {"pop", NULL, changes}, {"remove", NULL, changes}, {"clear", NULL, changes}, {"sort", NULL, changes}, {"reverse", NULL, changes},
    {"copy", NULL, unknown}, {NULL, NULL, NULL},
};
