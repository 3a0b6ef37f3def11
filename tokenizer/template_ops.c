// template_ops.c: operators, comparisons, attributes, items and slices, as Python and Jinja define them.
//
// Where Python would raise, this fails with a sentence; where Jinja gives an undefined value, so does this, and whoever computes
// with that value fails by its name.
#include "tokenizer/template.h"

#include <math.h>
#include <string.h>

static _Noreturn void undefined_used(struct machine *m, struct value v) {
    machine_fail(m, "%.*s", (int)(v.s.n < 200 ? v.s.n : 200), v.s.p);
}

static bool number(struct value v) { return v.kind == V_BOOL || v.kind == V_INT || v.kind == V_REAL; }
static int64_t whole(struct value v) { return v.kind == V_BOOL ? v.truth : v.integer; }
static double real(struct value v) { return v.kind == V_REAL ? v.real : (double)whole(v); }

bool value_true(struct value v) {
    switch (v.kind) {
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.truth;
    case V_INT: return v.integer != 0;
    case V_REAL: return v.real != 0;
    case V_STRING: return v.s.n > 0;
    case V_LIST: return v.list->n > 0;
    case V_DICT: return v.dict->n > 0;
    default: return true;
    }
}

bool value_equal(struct machine *m, struct value a, struct value b) {
    machine_step(m, a.kind == V_STRING ? a.s.n : 0);
    if (number(a) && number(b)) return a.kind == V_REAL || b.kind == V_REAL ? real(a) == real(b) : whole(a) == whole(b);
    if (a.kind != b.kind) return false;
    if (a.kind == V_STRING) return a.s.n == b.s.n && !memcmp(a.s.p, b.s.p, a.s.n);
    if (a.kind == V_UNDEFINED || a.kind == V_NONE) return true;
    if (a.kind != V_LIST && a.kind != V_DICT) return a.dict == b.dict; // the same thing
    machine_enter(m);
    bool equal = true;
    if (a.kind == V_LIST) {
        equal = a.list->n == b.list->n && a.tuple == b.tuple;
        for (size_t i = 0; equal && i < a.list->n; i++) equal = value_equal(m, a.list->at[i], b.list->at[i]);
    } else {
        equal = a.dict->n == b.dict->n;
        for (size_t i = 0; equal && i < a.dict->n; i++) {
            const struct value *other = dict_find(m, b.dict, a.dict->at[i].key);
            equal = other && value_equal(m, a.dict->at[i].value, *other);
        }
    }
    machine_leave(m);
    return equal;
}

int value_order(struct machine *m, struct value a, struct value b) {
    machine_step(m, a.kind == V_STRING ? a.s.n : 0);
    if (a.kind == V_UNDEFINED) undefined_used(m, a);
    if (b.kind == V_UNDEFINED) undefined_used(m, b);
    if (number(a) && number(b)) {
        if (a.kind == V_REAL || b.kind == V_REAL) return (real(a) > real(b)) - (real(a) < real(b));
        return (whole(a) > whole(b)) - (whole(a) < whole(b));
    }
    if (a.kind == V_STRING && b.kind == V_STRING) { // UTF-8 sorts as its code points do
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        int order = n ? memcmp(a.s.p, b.s.p, n) : 0;
        return order ? order : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.kind == V_LIST && b.kind == V_LIST && a.tuple == b.tuple) {
        machine_enter(m);
        int order = 0;
        size_t n = a.list->n < b.list->n ? a.list->n : b.list->n;
        for (size_t i = 0; i < n && !order; i++)
            if (!value_equal(m, a.list->at[i], b.list->at[i])) order = value_order(m, a.list->at[i], b.list->at[i]);
        machine_leave(m);
        return order ? order : (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    machine_fail(m, "%s and %s have no order", value_kind_name(a), value_kind_name(b));
}

bool value_in(struct machine *m, struct value what, struct value in) {
    machine_step(m, 0);
    if (in.kind == V_STRING) {
        if (what.kind == V_UNDEFINED) undefined_used(m, what);
        if (what.kind != V_STRING) machine_fail(m, "\"in\" a string wants a string, found %s", value_kind_name(what));
        return string_find(m, in.s, 0, what.s) != SIZE_MAX;
    }
    if (in.kind == V_DICT || in.kind == V_NAMESPACE) return dict_find(m, in.dict, what) != NULL;
    if (in.kind == V_UNDEFINED) return false;
    if (in.kind != V_LIST) machine_fail(m, "\"in\" wants a string, a list or a dictionary, found %s", value_kind_name(in));
    for (size_t i = 0; i < in.list->n; i++) {
        machine_step(m, 0);
        if (value_equal(m, in.list->at[i], what)) return true;
    }
    return false;
}

// ---- arithmetic

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

static struct value binary_whole(struct machine *m, int op, int64_t a, int64_t b) {
    int64_t x = 0;
    bool over = false;
    if ((op == '/' || op == 'D' || op == '%') && b == 0) machine_fail(m, "division by zero");
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &x); break;
    case '-': over = __builtin_sub_overflow(a, b, &x); break;
    case '*': over = __builtin_mul_overflow(a, b, &x); break;
    case '/': return value_real((double)a / (double)b);
    case 'D':
    case '%':
        over = b == -1 && a == INT64_MIN;
        if (!over) x = op == 'D' ? floor_div(a, b) : a - floor_div(a, b) * b;
        break;
    default:
        if (b < 0) return value_real(pow((double)a, (double)b));
        x = 1;
        for (int64_t i = 0; i < b && !over; i++) {
            if (x == 0 || (x == 1 && a == 1)) break;
            over = __builtin_mul_overflow(x, a, &x);
            machine_step(m, 0);
        }
    }
    if (over) machine_fail(m, "a number grows beyond 64 bits");
    return value_int(x);
}

static struct value binary_real(struct machine *m, int op, double a, double b) {
    if ((op == '/' || op == 'D' || op == '%') && b == 0) machine_fail(m, "division by zero");
    switch (op) {
    case '+': return value_real(a + b);
    case '-': return value_real(a - b);
    case '*': return value_real(a * b);
    case '/': return value_real(a / b);
    case 'D': return value_real(floor(a / b));
    case '%': {
        double x = fmod(a, b);
        return value_real(x != 0 && (x < 0) != (b < 0) ? x + b : x);
    }
    default: return value_real(pow(a, b));
    }
}

static struct value repeat(struct machine *m, struct value v, int64_t times) {
    struct value list = value_list(m);
    struct builder b = {0};
    if (v.kind == V_STRING && !v.s.n) return v;
    if (times > 0 && (uint64_t)times > m->memory_max) machine_fail(m, "more than %zu MB of memory are wanted", m->memory_max >> 20);
    for (int64_t i = 0; i < times; i++) {
        machine_step(m, 0);
        if (v.kind == V_STRING) build_string(m, &b, v);
        else if (!v.list->n) break;
        for (size_t k = 0; v.kind == V_LIST && k < v.list->n; k++) list_add(m, list.list, v.list->at[k]);
    }
    list.tuple = v.tuple;
    return v.kind == V_STRING ? built(&b) : list;
}

struct value value_binary(struct machine *m, int op, struct value a, struct value b) {
    static const char names[][3] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.kind == V_UNDEFINED) undefined_used(m, a);
    if (b.kind == V_UNDEFINED) undefined_used(m, b);
    if (number(a) && number(b))
        return a.kind == V_REAL || b.kind == V_REAL ? binary_real(m, op, real(a), real(b)) : binary_whole(m, op, whole(a), whole(b));
    if (op == '+' && a.kind == V_STRING && b.kind == V_STRING) {
        struct builder sum = {0};
        build_string(m, &sum, a);
        build_string(m, &sum, b);
        return built(&sum);
    }
    if (op == '+' && a.kind == V_LIST && b.kind == V_LIST && a.tuple == b.tuple) {
        struct value sum = value_list(m);
        sum.tuple = a.tuple;
        for (size_t i = 0; i < a.list->n; i++) list_add(m, sum.list, a.list->at[i]);
        for (size_t i = 0; i < b.list->n; i++) list_add(m, sum.list, b.list->at[i]);
        return sum;
    }
    if (op == '*' && (a.kind == V_STRING || a.kind == V_LIST) && (b.kind == V_INT || b.kind == V_BOOL)) return repeat(m, a, whole(b));
    if (op == '*' && (b.kind == V_STRING || b.kind == V_LIST) && (a.kind == V_INT || a.kind == V_BOOL)) return repeat(m, b, whole(a));
    if (op == '%' && a.kind == V_STRING) machine_fail(m, "formatting a string by %% is not known here");
    machine_fail(m, "%s %s %s has no meaning", value_kind_name(a), names[strchr("+-*/D%P", op) - "+-*/D%P"], value_kind_name(b));
}

// ---- parts of things

static struct value loop_attribute(struct machine *m, const struct loop *l, struct str name) {
    int64_t i = (int64_t)l->index, n = (int64_t)l->over->n;
    if (str_is(name, "index")) return value_int(i + 1);
    if (str_is(name, "index0")) return value_int(i);
    if (str_is(name, "first")) return value_bool(i == 0);
    if (str_is(name, "last")) return value_bool(i == n - 1);
    if (str_is(name, "length")) return value_int(n);
    if (str_is(name, "revindex")) return value_int(n - i);
    if (str_is(name, "revindex0")) return value_int(n - i - 1);
    if (str_is(name, "depth")) return value_int(1);
    if (str_is(name, "depth0")) return value_int(0);
    if (str_is(name, "previtem")) return i > 0 ? l->over->at[i - 1] : value_undefined(m, "there is no previous item");
    if (str_is(name, "nextitem")) return i + 1 < n ? l->over->at[i + 1] : value_undefined(m, "there is no next item");
    machine_fail(m, "loop.%.*s is not known here", (int)(name.n < 60 ? name.n : 60), name.p);
}

static struct value method_of(struct machine *m, struct value of, const struct builtin *what) {
    struct method *method = machine_alloc(m, sizeof *method);
    *method = (struct method){of, what};
    return (struct value){.kind = V_METHOD, .method = method};
}

static struct value missing(struct machine *m, struct value of, struct str name) {
    return value_undefined(m, "%s has no attribute '%.*s'", value_kind_name(of), (int)(name.n < 100 ? name.n : 100), name.p);
}

// Python's own attributes come first: {"items": 1}.items is the method, {"items": 1}["items"] the member.
struct value value_attribute(struct machine *m, struct value of, struct str name) {
    machine_step(m, 0);
    if (of.kind == V_UNDEFINED) undefined_used(m, of);
    if (of.kind == V_LOOP) return loop_attribute(m, of.loop, name);
    const struct builtin *method = of.kind == V_STRING ? builtin_find(STRING_METHODS, name)
                                   : of.kind == V_DICT ? builtin_find(DICT_METHODS, name)
                                   : of.kind == V_LIST ? builtin_find(LIST_METHODS, name)
                                                       : NULL;
    if (method) return method_of(m, of, method);
    if (of.kind == V_DICT || of.kind == V_NAMESPACE) {
        const struct value *v = dict_find(m, of.dict, (struct value){.kind = V_STRING, .s = name});
        if (v) return *v;
    }
    return missing(m, of, name);
}

struct value value_item(struct machine *m, struct value of, struct value key) {
    machine_step(m, 0);
    if (of.kind == V_UNDEFINED) undefined_used(m, of);
    if (of.kind == V_DICT) {
        const struct value *v = key.kind == V_UNDEFINED ? NULL : dict_find(m, of.dict, key);
        if (v) return *v;
    }
    if (key.kind == V_STRING) return of.kind == V_DICT && !builtin_find(DICT_METHODS, key.s) ? missing(m, of, key.s) : value_attribute(m, of, key.s);
    if ((of.kind == V_LIST || of.kind == V_STRING) && (key.kind == V_INT || key.kind == V_BOOL)) {
        int64_t n = (int64_t)value_length(m, of), i = whole(key);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return value_undefined(m, "%s of length %lld has no item %lld", value_kind_name(of), (long long)n, (long long)whole(key));
        if (of.kind == V_LIST) return of.list->at[i];
        size_t from = string_at(of.s, (size_t)i);
        return string_part(of, from, from + char_size(of.s.p + from, of.s.n - from, &(uint32_t){0}));
    }
    return value_undefined(m, "%s has no item of the key given (%s)", value_kind_name(of), value_kind_name(key));
}

// The index a bound of a slice means, clamped as Python does.
static int64_t slice_bound(struct machine *m, struct value v, int64_t absent, int64_t n, int64_t least, int64_t most) {
    if (v.kind == V_NONE) return absent;
    if (v.kind != V_INT && v.kind != V_BOOL) machine_fail(m, "a slice wants integers, found %s", value_kind_name(v));
    int64_t i = whole(v);
    if (i < 0) i = i < -n ? least : i + n;
    return i < least ? least : i > most ? most : i;
}

struct value value_slice(struct machine *m, struct value of, const struct value *bound) {
    if (of.kind == V_UNDEFINED) undefined_used(m, of);
    if (of.kind != V_LIST && of.kind != V_STRING) machine_fail(m, "%s cannot be sliced", value_kind_name(of));
    int64_t n = (int64_t)value_length(m, of), step = bound[2].kind == V_NONE ? 1 : bound[2].kind == V_INT ? bound[2].integer : 0;
    if (step == 0 || step == INT64_MIN) machine_fail(m, "the step of a slice must be an integer other than zero");
    bool back = step < 0;
    int64_t from = slice_bound(m, bound[0], back ? n - 1 : 0, n, back ? -1 : 0, back ? n - 1 : n);
    int64_t to = slice_bound(m, bound[1], back ? -1 : n, n, back ? -1 : 0, back ? n - 1 : n);
    if (of.kind == V_STRING && step == 1) {
        machine_step(m, of.s.n);
        size_t begin = string_at(of.s, (size_t)from);
        struct str rest = {of.s.p + begin, of.s.n - begin, NULL};
        return string_part(of, begin, to > from ? begin + string_at(rest, (size_t)(to - from)) : begin);
    }
    struct value list = value_list(m);
    struct list *all = value_iterate(m, of);
    struct builder b = {0};
    list.tuple = of.tuple;
    for (int64_t i = from; back ? i > to : i < to;) {
        if (of.kind == V_STRING) build_string(m, &b, all->at[i]);
        else list_add(m, list.list, all->at[i]);
        if (back ? step < to - i : step > to - i) break; // the next one would pass the end, perhaps all numbers
        i += step;
    }
    return of.kind == V_STRING ? built(&b) : list;
}

size_t value_length(struct machine *m, struct value v) {
    switch (v.kind) {
    case V_UNDEFINED: return 0;
    case V_STRING: return string_length(m, v.s);
    case V_LIST: return v.list->n;
    case V_DICT: return v.dict->n;
    case V_LOOP: return v.loop->over->n;
    default: machine_fail(m, "%s has no length", value_kind_name(v));
    }
}

struct list *value_iterate(struct machine *m, struct value v) {
    if (v.kind == V_LIST) return v.list;
    struct list *l = value_list(m).list;
    if (v.kind == V_DICT) {
        for (size_t i = 0; i < v.dict->n; i++) list_add(m, l, v.dict->at[i].key);
    } else if (v.kind == V_STRING) {
        for (size_t at = 0, size; at < v.s.n; at += size) {
            size = char_size(v.s.p + at, v.s.n - at, &(uint32_t){0});
            machine_step(m, 0);
            list_add(m, l, string_part(v, at, at + size));
        }
    } else if (v.kind != V_UNDEFINED) {
        machine_fail(m, "%s cannot be looped over", value_kind_name(v));
    }
    return l;
}
