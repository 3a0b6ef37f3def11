// template_builtin.c: filters and tests, as Jinja and transformers define them.
#include "tokenizer/template.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool flag(struct call *c, size_t index, const char *name, bool otherwise) {
    const struct value *v = call_take(c, index, name);
    return v ? value_true(*v) : otherwise;
}

static int64_t integer(struct machine *m, struct call *c, size_t index, const char *name, int64_t otherwise) {
    const struct value *v = call_take(c, index, name);
    if (!v || v->kind == V_NONE) return otherwise;
    if (v->kind == V_BOOL) return v->truth;
    if (v->kind != V_INT) machine_fail(m, "%s: %s must be an integer, found %s", c->what, name, value_kind_name(*v));
    return v->integer;
}

// ---- filters of texts

static struct value f_trim(struct machine *m, struct value self, struct call *c) {
    const struct value *what = call_take(c, 0, "chars");
    if (what && what->kind == V_NONE) what = NULL;
    if (what && what->kind != V_STRING) machine_fail(m, "trim wants a string, found %s", value_kind_name(*what));
    return string_strip(m, string_of(m, self), what, true, true);
}

static struct value f_upper(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, string_of(m, self), 'u'); }
static struct value f_lower(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, string_of(m, self), 'l'); }
static struct value f_title(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, string_of(m, self), 'T'); }
static struct value f_capitalize(struct machine *m, struct value self, struct call *c) { return (void)c, string_cased(m, string_of(m, self), 'c'); }
static struct value f_replace(struct machine *m, struct value self, struct call *c) { return string_replace(m, string_of(m, self), c); }
static struct value f_string(struct machine *m, struct value self, struct call *c) { return (void)c, string_of(m, self); }

static struct value f_escape(struct machine *m, struct value self, struct call *c) {
    static const char from[] = "&<>'\"", *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    (void)c;
    struct value s = string_of(m, self);
    struct builder b = {0};
    for (size_t at = 0; at < s.s.n; at++) {
        const char *known = s.s.p[at] ? strchr(from, s.s.p[at]) : NULL;
        if (!known) build_string(m, &b, string_part(s, at, at + 1));
        else build_bytes(m, &b, to[known - from], strlen(to[known - from]), s.origin == FROM_TEMPLATE ? FROM_TEMPLATE : FROM_CONTENT);
    }
    return built(&b);
}

static struct value f_indent(struct machine *m, struct value self, struct call *c) {
    const struct value *width = call_take(c, 0, "width");
    bool first = flag(c, 1, "first", false), blank = flag(c, 2, "blank", false);
    struct builder margin = {0}, b = {0};
    if (width && width->kind != V_STRING && width->kind != V_INT) machine_fail(m, "indent wants a number or a string, found %s", value_kind_name(*width));
    if (width && width->kind == V_STRING) build_string(m, &margin, *width);
    else
        for (int64_t i = width ? width->integer : 4; i > 0; i--) build_text(m, &margin, " ");
    struct builder whole = {0};
    build_string(m, &whole, string_of(m, self));
    build_text(m, &whole, "\n"); // so that a last empty line stays one
    const struct list *lines = string_lines(m, built(&whole)).list;
    for (size_t i = 0; i < lines->n; i++) {
        if (i) build_text(m, &b, "\n");
        if (i ? blank || lines->at[i].s.n : first) build_string(m, &b, built(&margin));
        build_string(m, &b, lines->at[i]);
    }
    return built(&b);
}

static struct value f_tojson(struct machine *m, struct value self, struct call *c) {
    struct json_style style = {.between = value_text(", "), .after_key = value_text(": ")};
    style.ascii = flag(c, 0, "ensure_ascii", false);
    style.indent = (int)integer(m, c, 1, "indent", -1);
    if (style.indent < -1 || style.indent > 64) machine_fail(m, "tojson: an indent of %d is not known here", style.indent);
    if (style.indent >= 0) style.between = value_text(",");
    const struct value *separators = call_take(c, 2, "separators");
    if (separators && separators->kind == V_LIST && separators->list->n == 2 && separators->list->at[0].kind == V_STRING &&
        separators->list->at[1].kind == V_STRING) {
        style.between = separators->list->at[0];
        style.after_key = separators->list->at[1];
    } else if (separators && separators->kind != V_NONE) {
        machine_fail(m, "tojson: separators must be two strings");
    }
    style.sorted = flag(c, 3, "sort_keys", false);
    struct builder b = {0};
    build_json(m, &b, self, &style, 0);
    return built(&b);
}

// ---- filters of numbers

static bool text_number(struct value v, char text[64]) {
    if (v.kind != V_STRING || v.s.n > 62 || memchr(v.s.p, '\0', v.s.n)) return false;
    size_t n = 0;
    for (size_t i = 0; i < v.s.n; i++)
        if (v.s.p[i] != '_') text[n++] = v.s.p[i];
    while (n && python_space((unsigned char)text[n - 1]) && (unsigned char)text[n - 1] < 0x80) n--;
    text[n] = '\0';
    return n > 0 && !strchr(text, 'x') && !strchr(text, 'X');
}

static struct value f_int(struct machine *m, struct value self, struct call *c) {
    char text[64], *end;
    const struct value *otherwise = call_take(c, 0, "default");
    int64_t base = integer(m, c, 1, "base", 10);
    if (base != 10 && base != 16 && base != 8 && base != 2) machine_fail(m, "int: base %lld is not known here", (long long)base);
    if (self.kind == V_BOOL) return value_int(self.truth);
    if (self.kind == V_INT) return self;
    if (self.kind == V_REAL && fabs(self.real) < 9e18) return value_int((int64_t)self.real);
    if (text_number(self, text)) {
        errno = 0;
        long long x = strtoll(text, &end, (int)base);
        if (errno) machine_fail(m, "int: %s is too large", text);
        if (!*end) return value_int(x);
        double real = strtod(text, &end);
        if (!*end && fabs(real) < 9e18) return value_int((int64_t)real);
    }
    return otherwise ? *otherwise : value_int(0);
}

static struct value f_float(struct machine *m, struct value self, struct call *c) {
    char text[64], *end;
    const struct value *otherwise = call_take(c, 0, "default");
    (void)m;
    if (self.kind == V_BOOL) return value_real(self.truth);
    if (self.kind == V_INT) return value_real((double)self.integer);
    if (self.kind == V_REAL) return self;
    if (text_number(self, text)) {
        double x = strtod(text, &end);
        if (!*end) return value_real(x);
    }
    return otherwise ? *otherwise : value_real(0);
}

static struct value f_round(struct machine *m, struct value self, struct call *c) {
    int64_t precision = integer(m, c, 0, "precision", 0);
    const struct value *method = call_take(c, 1, "method");
    if (precision < 0 || precision > 15) machine_fail(m, "round: a precision of %lld is not known here", (long long)precision);
    if (self.kind != V_INT && self.kind != V_REAL) machine_fail(m, "round wants a number, found %s", value_kind_name(self));
    double x = self.kind == V_INT ? (double)self.integer : self.real, scale = pow(10, (double)precision);
    if (!method || value_is(*method, "common")) { // to the nearest, as its decimal digits say
        char text[400];
        snprintf(text, sizeof text, "%.*f", (int)precision, x);
        double rounded = strtod(text, NULL);
        return self.kind == V_INT ? self : value_real(rounded);
    }
    if (value_is(*method, "ceil")) return value_real(ceil(x * scale) / scale);
    if (value_is(*method, "floor")) return value_real(floor(x * scale) / scale);
    machine_fail(m, "round: the method is not known here");
}

static struct value f_abs(struct machine *m, struct value self, struct call *c) {
    (void)c;
    if (self.kind == V_REAL) return value_real(fabs(self.real));
    if (self.kind != V_INT) machine_fail(m, "abs wants a number, found %s", value_kind_name(self));
    return self.integer < 0 ? value_binary(m, '-', value_int(0), self) : self;
}

// ---- filters of lists

static struct value f_length(struct machine *m, struct value self, struct call *c) { return (void)c, value_int((int64_t)value_length(m, self)); }

static struct value f_default(struct machine *m, struct value self, struct call *c) {
    const struct value *instead = call_take(c, 0, "default_value");
    bool use = flag(c, 1, "boolean", false) ? !value_true(self) : self.kind == V_UNDEFINED;
    (void)m;
    return !use ? self : instead ? *instead : value_text("");
}

// x.a.b by "a.b"; numbers among the parts are indices; otherwise (may be NULL) stands in for what is undefined.
static struct value by_path(struct machine *m, struct value v, struct value path, const struct value *otherwise) {
    if (path.kind != V_STRING) return value_item(m, v, path);
    machine_step(m, path.s.n);
    for (size_t at = 0, end; at <= path.s.n; at = end + 1) {
        for (end = at; end < path.s.n && path.s.p[end] != '.'; end++) {}
        struct value part = string_part(path, at, end);
        bool digits = end > at && end - at < 10;
        int64_t index = 0;
        for (size_t i = at; digits && i < end; i++) {
            digits = path.s.p[i] >= '0' && path.s.p[i] <= '9';
            index = index * 10 + (path.s.p[i] - '0');
        }
        v = value_item(m, v, digits ? value_int(index) : part);
        if (otherwise && v.kind == V_UNDEFINED) v = *otherwise;
    }
    return v;
}

static struct value f_join(struct machine *m, struct value self, struct call *c) {
    const struct value *between = call_take(c, 0, "d"), *path = call_take(c, 1, "attribute");
    const struct list *l = value_iterate(m, self);
    struct builder b = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (i && between) build_value(m, &b, *between);
        build_value(m, &b, path && path->kind != V_NONE ? by_path(m, l->at[i], *path, NULL) : l->at[i]);
    }
    return built(&b);
}

static struct value f_first(struct machine *m, struct value self, struct call *c) {
    (void)c;
    const struct list *l = value_iterate(m, self);
    return l->n ? l->at[0] : value_undefined(m, "there is no first item, the sequence is empty");
}

static struct value f_last(struct machine *m, struct value self, struct call *c) {
    (void)c;
    const struct list *l = value_iterate(m, self);
    return l->n ? l->at[l->n - 1] : value_undefined(m, "there is no last item, the sequence is empty");
}

static struct value f_list(struct machine *m, struct value self, struct call *c) {
    (void)c;
    return (struct value){.kind = V_LIST, .list = value_iterate(m, self)};
}

static struct value f_reverse(struct machine *m, struct value self, struct call *c) {
    (void)c;
    const struct list *l = value_iterate(m, self);
    struct value back = value_list(m);
    struct builder b = {0};
    for (size_t i = l->n; i-- > 0;) {
        if (self.kind == V_STRING) build_string(m, &b, l->at[i]);
        else list_add(m, back.list, l->at[i]);
    }
    return self.kind == V_STRING ? built(&b) : back;
}

static struct value f_items(struct machine *m, struct value self, struct call *c) {
    (void)c;
    if (self.kind == V_UNDEFINED) return value_list(m);
    if (self.kind != V_DICT) machine_fail(m, "items wants a dictionary, found %s", value_kind_name(self));
    return dict_items(m, self.dict);
}

// The arguments behind the first `skip` ones, for the filter or test they belong to.
static struct call rest(struct call *c, size_t skip) {
    struct call inner = {.at = c->at + skip, .n = c->n - skip, .named = c->named, .n_named = c->n_named};
    c->taken = c->n;
    c->named_taken = c->n_named;
    return inner;
}

static struct value f_map(struct machine *m, struct value self, struct call *c) {
    struct value out = value_list(m);
    const struct list *l = value_true(self) ? value_iterate(m, self) : out.list; // none maps to nothing
    const struct value *path = c->n ? NULL : call_take(c, 0, "attribute"), *otherwise = path ? call_take(c, 1, "default") : NULL;
    const struct builtin *filter = NULL;
    if (!path) {
        struct value name = call_need(m, c, 0, "filter");
        filter = name.kind == V_STRING ? builtin_find(FILTERS, name.s) : NULL;
        if (!filter) machine_fail(m, "map: the filter \"%.*s\" is not known here", name.kind == V_STRING ? (int)name.s.n : 0, name.s.p);
    }
    for (size_t i = 0; i < l->n; i++) {
        struct value v;
        if (path) {
            v = by_path(m, l->at[i], *path, otherwise);
        } else {
            struct call inner = rest(c, 1);
            v = call_builtin(m, filter, l->at[i], &inner);
        }
        list_add(m, out.list, v);
    }
    if (!path) rest(c, 1);
    return out;
}

static struct value picked(struct machine *m, struct value self, struct call *c, bool attribute, bool wanted) {
    const struct list *l = value_true(self) ? value_iterate(m, self) : value_list(m).list; // none has nothing to pick
    struct value out = value_list(m), path = attribute ? call_need(m, c, 0, "attribute") : value_none();
    size_t at = attribute;
    const struct value *name = call_take(c, at, NULL);
    const struct builtin *test = NULL;
    if (name) {
        test = name->kind == V_STRING ? builtin_find(TESTS, name->s) : NULL;
        if (!test) machine_fail(m, "%s: the test is not known here", c->what);
        at++;
    }
    for (size_t i = 0; i < l->n; i++) {
        machine_step(m, 0);
        struct value v = attribute ? by_path(m, l->at[i], path, NULL) : l->at[i];
        struct call inner = rest(c, at);
        bool holds = test ? call_builtin(m, test, v, &inner).truth : value_true(v);
        if (holds == wanted) list_add(m, out.list, l->at[i]);
    }
    rest(c, at);
    return out;
}

static struct value f_select(struct machine *m, struct value self, struct call *c) { return picked(m, self, c, false, true); }
static struct value f_reject(struct machine *m, struct value self, struct call *c) { return picked(m, self, c, false, false); }
static struct value f_selectattr(struct machine *m, struct value self, struct call *c) { return picked(m, self, c, true, true); }
static struct value f_rejectattr(struct machine *m, struct value self, struct call *c) { return picked(m, self, c, true, false); }

// What an item is sorted and compared by: an attribute, and strings without their case unless it counts.
struct keyed {
    struct value key, item;
};

static struct keyed *keys_of(struct machine *m, const struct list *l, const struct value *path, bool case_counts) {
    struct keyed *k = machine_alloc(m, (l->n + 1) * sizeof *k);
    for (size_t i = 0; i < l->n; i++) {
        k[i].item = l->at[i];
        k[i].key = path && path->kind != V_NONE ? by_path(m, l->at[i], *path, NULL) : l->at[i];
        if (!case_counts && k[i].key.kind == V_STRING) k[i].key = string_cased(m, k[i].key, 'l');
    }
    return k;
}

// Stable, by merging; reverse keeps the order of equals, as Python does.
static void sort_keyed(struct machine *m, struct keyed *k, size_t n, bool reverse) {
    struct keyed *other = machine_alloc(m, (n + 1) * sizeof *other);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t a = from, mid = n - from < width ? n : from + width, b = mid, end = n - mid < width ? n : mid + width;
            for (size_t i = from; i < end; i++) {
                bool right = a >= mid;
                if (!right && b < end) {
                    int order = value_order(m, k[b].key, k[a].key);
                    right = reverse ? order > 0 : order < 0;
                }
                other[i] = right ? k[b++] : k[a++];
            }
        }
        memcpy(k, other, n * sizeof *k);
    }
}

static struct value f_sort(struct machine *m, struct value self, struct call *c) {
    const struct list *l = value_iterate(m, self);
    bool reverse = flag(c, 0, "reverse", false), case_counts = flag(c, 1, "case_sensitive", false);
    struct keyed *k = keys_of(m, l, call_take(c, 2, "attribute"), case_counts);
    struct value out = value_list(m);
    sort_keyed(m, k, l->n, reverse);
    for (size_t i = 0; i < l->n; i++) list_add(m, out.list, k[i].item);
    return out;
}

static struct value f_dictsort(struct machine *m, struct value self, struct call *c) {
    if (self.kind != V_DICT) machine_fail(m, "dictsort wants a dictionary, found %s", value_kind_name(self));
    bool case_counts = flag(c, 0, "case_sensitive", false);
    const struct value *by = call_take(c, 1, "by");
    bool reverse = flag(c, 2, "reverse", false);
    if (by && !value_is(*by, "key") && !value_is(*by, "value")) machine_fail(m, "dictsort: by must be \"key\" or \"value\"");
    struct value items = dict_items(m, self.dict), path = value_int(by && value_is(*by, "value")), out = value_list(m);
    struct keyed *k = keys_of(m, items.list, &path, case_counts);
    sort_keyed(m, k, items.list->n, reverse);
    for (size_t i = 0; i < items.list->n; i++) list_add(m, out.list, k[i].item);
    return out;
}

static struct value f_unique(struct machine *m, struct value self, struct call *c) {
    const struct list *l = value_iterate(m, self);
    bool case_counts = flag(c, 0, "case_sensitive", false);
    struct keyed *k = keys_of(m, l, call_take(c, 1, "attribute"), case_counts);
    struct value out = value_list(m), seen = value_dict(m);
    for (size_t i = 0; i < l->n; i++) {
        if (dict_find(m, seen.dict, k[i].key)) continue;
        dict_set(m, seen.dict, k[i].key, value_none());
        list_add(m, out.list, k[i].item);
    }
    return out;
}

static struct value extreme(struct machine *m, struct value self, struct call *c, int sign) {
    const struct list *l = value_iterate(m, self);
    bool case_counts = flag(c, 0, "case_sensitive", false);
    struct keyed *k = keys_of(m, l, call_take(c, 1, "attribute"), case_counts);
    size_t best = 0;
    if (!l->n) return value_undefined(m, "there is no %s, the sequence is empty", c->what);
    for (size_t i = 1; i < l->n; i++)
        if (value_order(m, k[i].key, k[best].key) * sign > 0) best = i;
    return k[best].item;
}

static struct value f_min(struct machine *m, struct value self, struct call *c) { return extreme(m, self, c, -1); }
static struct value f_max(struct machine *m, struct value self, struct call *c) { return extreme(m, self, c, 1); }

static struct value f_sum(struct machine *m, struct value self, struct call *c) {
    const struct list *l = value_iterate(m, self);
    const struct value *path = call_take(c, 0, "attribute"), *start = call_take(c, 1, "start");
    struct value sum = start ? *start : value_int(0);
    for (size_t i = 0; i < l->n; i++) {
        machine_step(m, 0);
        sum = value_binary(m, '+', sum, path && path->kind != V_NONE ? by_path(m, l->at[i], *path, NULL) : l->at[i]);
    }
    return sum;
}

// ---- tests

#define TEST(name, condition) \
    static struct value name(struct machine *m, struct value v, struct call *c) { \
        (void)m, (void)c, (void)v; \
        return value_bool(condition); \
    }
TEST(t_defined, v.kind != V_UNDEFINED)
TEST(t_undefined, v.kind == V_UNDEFINED)
TEST(t_none, v.kind == V_NONE)
TEST(t_string, v.kind == V_STRING)
TEST(t_number, v.kind == V_INT || v.kind == V_REAL || v.kind == V_BOOL)
TEST(t_integer, v.kind == V_INT)
TEST(t_float, v.kind == V_REAL)
TEST(t_boolean, v.kind == V_BOOL)
TEST(t_true, v.kind == V_BOOL && v.truth)
TEST(t_false, v.kind == V_BOOL && !v.truth)
TEST(t_mapping, v.kind == V_DICT)
TEST(t_iterable, v.kind == V_STRING || v.kind == V_LIST || v.kind == V_DICT || v.kind == V_UNDEFINED || v.kind == V_LOOP)
TEST(t_sequence, v.kind == V_STRING || v.kind == V_LIST || v.kind == V_DICT || v.kind == V_UNDEFINED)
TEST(t_callable, v.kind == V_MACRO || v.kind == V_FUNCTION || v.kind == V_METHOD)
TEST(t_equal, value_equal(m, v, call_need(m, c, 0, "other")))
TEST(t_unequal, !value_equal(m, v, call_need(m, c, 0, "other")))
TEST(t_less, value_order(m, v, call_need(m, c, 0, "other")) < 0)
TEST(t_greater, value_order(m, v, call_need(m, c, 0, "other")) > 0)
TEST(t_at_most, value_order(m, v, call_need(m, c, 0, "other")) <= 0)
TEST(t_at_least, value_order(m, v, call_need(m, c, 0, "other")) >= 0)
TEST(t_in, value_in(m, v, call_need(m, c, 0, "seq")))
TEST(t_odd, value_equal(m, value_binary(m, '%', v, value_int(2)), value_int(1)))
TEST(t_even, value_equal(m, value_binary(m, '%', v, value_int(2)), value_int(0)))
TEST(t_divisible, value_equal(m, value_binary(m, '%', v, call_need(m, c, 0, "num")), value_int(0)))

static struct value t_same(struct machine *m, struct value v, struct call *c) {
    struct value other = call_need(m, c, 0, "other");
    if (v.kind == V_STRING || v.kind == V_INT || v.kind == V_REAL) machine_fail(m, "sameas compares objects, which %s has no way to be here", value_kind_name(v));
    return value_bool(v.kind == other.kind && (v.kind == V_LIST || v.kind == V_DICT ? v.dict == other.dict : value_equal(m, v, other)));
}

// ---- tables

static const struct builtin filters[] = {
    {"trim", f_trim, NULL}, {"length", f_length, NULL}, {"count", f_length, NULL}, {"upper", f_upper, NULL}, {"lower", f_lower, NULL},
    {"title", f_title, NULL}, {"capitalize", f_capitalize, NULL}, {"default", f_default, NULL}, {"d", f_default, NULL},
    {"join", f_join, NULL}, {"replace", f_replace, NULL}, {"first", f_first, NULL}, {"last", f_last, NULL}, {"list", f_list, NULL},
    {"tojson", f_tojson, NULL}, {"int", f_int, NULL}, {"float", f_float, NULL}, {"string", f_string, NULL}, {"items", f_items, NULL},
    {"map", f_map, NULL}, {"select", f_select, NULL}, {"reject", f_reject, NULL}, {"selectattr", f_selectattr, NULL},
    {"rejectattr", f_rejectattr, NULL}, {"unique", f_unique, NULL}, {"sort", f_sort, NULL}, {"dictsort", f_dictsort, NULL},
    {"indent", f_indent, NULL}, {"safe", f_string, NULL}, {"escape", f_escape, NULL}, {"e", f_escape, NULL}, {"reverse", f_reverse, NULL},
    {"abs", f_abs, NULL}, {"round", f_round, NULL}, {"sum", f_sum, NULL}, {"min", f_min, NULL}, {"max", f_max, NULL}, {NULL, NULL, NULL},
};
static const struct builtin tests[] = {
    {"defined", t_defined, NULL}, {"undefined", t_undefined, NULL}, {"none", t_none, NULL}, {"string", t_string, NULL},
    {"number", t_number, NULL}, {"integer", t_integer, NULL}, {"float", t_float, NULL}, {"boolean", t_boolean, NULL},
    {"true", t_true, NULL}, {"false", t_false, NULL}, {"mapping", t_mapping, NULL}, {"iterable", t_iterable, NULL},
    {"sequence", t_sequence, NULL}, {"callable", t_callable, NULL}, {"equalto", t_equal, NULL}, {"eq", t_equal, NULL},
    {"ne", t_unequal, NULL}, {"lt", t_less, NULL}, {"lessthan", t_less, NULL}, {"gt", t_greater, NULL}, {"greaterthan", t_greater, NULL},
    {"le", t_at_most, NULL}, {"ge", t_at_least, NULL}, {"in", t_in, NULL}, {"odd", t_odd, NULL}, {"even", t_even, NULL},
    {"divisibleby", t_divisible, NULL}, {"sameas", t_same, NULL}, {NULL, NULL, NULL},
};

const struct builtin *builtin_find(enum builtin_table table, struct str name) {
    static const struct builtin *const tables[] = {filters, tests, template_functions, template_string_methods, template_dict_methods, template_list_methods};
    for (const struct builtin *b = tables[table]; b->name; b++)
        if (str_is(name, b->name)) return b;
    return NULL;
}
