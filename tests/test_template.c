// test_template.c: the interpreter of chat templates renders what Jinja renders, keeps within its bounds and knows which
// bytes are whose. The goldens are Jinja's own (make_template_goldens.py).
#include "tests/hostile.h"
#include "tokenizer/template.h"

#include <criterion/criterion.h>
#include <string.h>

static const struct tm july = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};

struct outcome {
    bool good;
    struct text text, marks;
    struct err err;
};

static struct outcome render(const char *source, size_t n, const struct template_variable *v, size_t n_v, const struct template_limits *limits) {
    struct outcome o = {.err = {"nothing said"}};
    struct template_input in = {.variables = v, .n_variables = n_v, .add_generation_prompt = true, .now = july, .limits = limits};
    struct template *t = template_open(source, n, &o.err);
    o.good = t && template_render(t, &in, &o.text, &o.marks, &o.err);
    template_free(t);
    return o;
}

static void outcome_free(struct outcome *o) {
    text_free(&o->text);
    text_free(&o->marks);
}

static void expect_text(const char *source, const char *wanted) {
    struct outcome o = render(source, strlen(source), NULL, 0, NULL);
    cr_expect(o.good, "%s: %s", source, o.err.text);
    cr_expect_str_eq(o.text.data ? o.text.data : "", wanted, "%s", source);
    outcome_free(&o);
}

static void expect_refused(const char *source, const char *word, const struct template_limits *limits) {
    struct outcome o = render(source, strlen(source), NULL, 0, limits);
    cr_expect(!o.good, "wanted a refusal: %s", source);
    cr_expect(strstr(o.err.text, word) && strstr(o.err.text, "line "), "wanted \"%s\" in \"%s\"", word, o.err.text);
    cr_expect(o.text.len == 0);
    outcome_free(&o);
}

// The members of a JSON object as variables; true ones are left out, they are set by the input.
static size_t members(struct json *j, struct template_variable *v, char names[][32]) {
    size_t n = 0;
    cr_assert(json_object(j));
    while (json_key(j, names[n], 32)) {
        json_peek(j);
        const char *from = j->at;
        cr_assert(json_skip(j));
        v[n] = (struct template_variable){names[n], {from, (size_t)(j->at - from)}, true, false};
        n++;
        cr_assert(n < 30);
    }
    return n;
}

Test(template, renders_what_jinja_renders) {
    struct text file = {0}, source = {0}, wanted = {0};
    struct err err;
    char key[32], names[30][32];
    struct template_variable v[30];
    cr_assert(file_read_all("tests/golden/template_features.jsonl", 1 << 24, &file, &err), "%s", err.text);
    const char *context = strstr(file.data, "\n{\"context\": ");
    cr_assert(context);
    struct json j;
    json_open(&j, context + 13, file.len - (size_t)(context + 13 - file.data));
    size_t n = members(&j, v, names), count = 0;
    for (const char *line = file.data; line <= context; line = strchr(line, '\n') + 1, count++) {
        json_open(&j, line, (size_t)(strchr(line, '\n') - line));
        bool fails = false;
        cr_assert(json_object(&j) && json_key(&j, key, sizeof key) && json_string(&j, &source) && json_key(&j, key, sizeof key));
        text_clear(&wanted);
        if (json_peek(&j) == JSON_NULL) fails = true;
        else cr_assert(json_string(&j, &wanted));
        struct outcome o = render(source.data, source.len, v, n, NULL);
        cr_expect(o.good == !fails, "%s\n%s", source.data, o.err.text);
        if (!fails && o.good)
            cr_expect(o.text.len == wanted.len && !memcmp(o.text.data, wanted.data, wanted.len), "%s\nwanted %s\ngot    %s", source.data, wanted.data, o.text.data);
        cr_expect(!o.good || o.text.len == o.marks.len);
        outcome_free(&o);
    }
    cr_expect(count > 50);
    text_free(&file);
    text_free(&source);
    text_free(&wanted);
}

// What the conversation wrote stays marked through every operation: c is content, t the template's.
static void expect_marks(const char *source, const char *wanted, const char *marks) {
    const struct template_variable v[] = {{"c", {"cC", 2}, false, false}, {"b", {"<s>", 3}, false, true}, {"d", {"{\"k\": [\"x<\", 1]}", 16}, true, false}};
    struct outcome o = render(source, strlen(source), v, COUNT_OF(v), NULL);
    cr_assert(o.good, "%s: %s", source, o.err.text);
    cr_expect_str_eq(o.text.data, wanted, "%s", source);
    for (size_t i = 0; i < o.marks.len; i++)
        cr_expect_eq(o.marks.data[i] != 0, marks[i] == 'c', "%s: byte %zu of %s", source, i, o.text.data);
    cr_expect_eq(o.marks.len, strlen(marks));
    outcome_free(&o);
}

Test(template, bytes_of_the_conversation_stay_marked) {
    expect_marks("a{{ c }}b{{ b }}", "acCb<s>", "tcctttt");
    expect_marks("{{ '<' ~ c ~ '>' }}", "<cC>", "tcct");
    expect_marks("{{ ('<' + c + '>')[1:4] }}", "cC>", "cct");
    expect_marks("{{ ('<' + c + '>') | upper }}", "<CC>", "tcct");
    expect_marks("{{ (' ' + c + ' ') | trim }}", "cC", "cc");
    expect_marks("{{ 'xay'.replace('a', c) }}", "xcCy", "tcct");
    expect_marks("{{ [c, 'b', c] | join('-') }}", "cC-b-cC", "cctttcc");
    expect_marks("{{ ('1' + c).split('C') | join('|') }}", "1c|", "tct");
    expect_marks("{{ c | tojson }}", "\"cC\"", "tcct");
    expect_marks("{{ d }}", "{'k': ['x<', 1]}", "ttctttttcctttttt");
    expect_marks("{% set x %}<{{ c }}>{% endset %}{{ x }}{{ x[::-1] }}", "<cC>>Cc<", "tccttcct");
    expect_marks("{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(c) }}", "[cC]", "tcct");
    expect_marks("{% for x in '<' + c %}{{ x }}.{% endfor %}", "<.c.C.", "ttctct");
    expect_marks("{{ (c ~ '\\n<') | indent(1) }}", "cC\n <", "ccttt");
    expect_marks("{{ c | first }}{{ (c + 'z') | last }}{{ c * 2 }}{{ ('<' ~ c) | reverse }}", "czcCcCCc<", "ctcccccct");
}

Test(template, what_is_not_known_is_refused_by_name) {
    expect_refused("{% include 'x' %}", "\"include\"", NULL);
    expect_refused("\n\n{% call m() %}{% endcall %}", "line 3", NULL);
    expect_refused("{{ 1 | nonesuch }}", "\"nonesuch\"", NULL);
    expect_refused("{{ 1 is nonesuch }}", "\"nonesuch\"", NULL);
    expect_refused("{{ nonesuch(1) }}", "'nonesuch' is undefined", NULL);
    expect_refused("{{ 'a'.zfill(3) }}", "\"zfill\"", NULL);
    expect_refused("{{ 'a %s' % 1 }}", "formatting", NULL);
    expect_refused("{{ 'a' | upper(1) }}", "takes 0 arguments", NULL);
    expect_refused("{{ 'a' | trim(nonesuch='x') }}", "named argument", NULL);
    expect_refused("{{ {}.update({}) }}", "\"update\"", NULL);
    expect_refused("{% for x in [1] recursive %}{% endfor %}", "recursive", NULL);
    expect_refused("{{ 'a", "no end", NULL);
    expect_refused("{% if 1 %}", "endif", NULL);
    expect_refused("{% endfor %}", "endfor", NULL);
    expect_refused("{{ 1 ? 2 }}", "'?'", NULL);
    expect_refused("{{ 1", "}}", NULL);
    expect_refused("{# ", "comment", NULL);
    expect_refused("{% break %}", "outside of a loop", NULL);
    expect_refused("{{ f(*x) }}", "*", NULL);
    expect_refused("{% raw %}", "endraw", NULL);
    expect_refused("{{ 9223372036854775807 + 1 }}", "64 bits", NULL);
    expect_refused("{{ '\xC5\x81' | lower }}", "U+0141", NULL);
    expect_text("{{ '<\xEF\xBD\x9CUser\xEF\xBD\x9C>' | upper }}", "<\xEF\xBD\x9CUSER\xEF\xBD\x9C>");
    expect_text("{{ '\xC3\x84\xD0\x96 \xE4\xB8\xAD' | lower }}{% if false %}{{ 1 | nonesuch }}{% endif %}", "\xC3\xA4\xD0\xB6 \xE4\xB8\xAD");
}

Test(template, programs_from_strangers_are_bounded, .timeout = 20) {
    const struct template_limits small = {.steps = 10000, .memory = 16 << 20, .output = 1000, .depth = 60};
    expect_refused("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", "steps", &small);
    expect_refused("{{ range(1000000000) }}", "100000", NULL);
    expect_refused("{{ 'x' * 100000000000 }}", "memory", NULL);
    expect_refused("{{ 'x' * 1001 }}", "grows beyond", &small);
    expect_refused("{% set ns = namespace(a='xxxxxxxx') %}{% for i in range(64) %}{% set ns.a = ns.a + ns.a %}{% endfor %}", "memory", NULL);
    expect_refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper", NULL);
    expect_refused("{% set ns = namespace(a=[]) %}{% for i in range(5000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}", "nested deeper", NULL);
    expect_refused("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "cannot be written", NULL);
    struct text deep = {0};
    const char *const open[] = {"{{ (((", "{{ [[[", "{{ ---", "{{ not not ", "{% if 1 %}", "{{ a.b.c.d.e", "{{ 1+1+1+1", "{{ a|e|e|e|e", "{{ {1:{1:"};
    for (size_t i = 0; i < COUNT_OF(open); i++) {
        text_clear(&deep);
        text_str(&deep, open[i]);
        for (int k = 0; k < 20000; k++) text_str(&deep, open[i] + (open[i][1] == '{' ? strlen(open[i]) - 2 : 0));
        expect_refused(deep.data, "line 1", NULL);
    }
    text_free(&deep);
}

// Whatever goes over a list or a string counts what it looks at: each of these would otherwise be asked for hours.
Test(template, work_inside_a_builtin_counts_as_steps, .timeout = 20) {
    static const char *const uses[] = {"ints == same", "ints | sum", "ints | reject", "zeros | select", "zeros | rejectattr(text)", "none_there in text",
                                       "text.rsplit(none_there)", "text.rfind(none_there)", "text.strip(none_there ~ 'c')", "text | tojson", "text[-1]"};
    const struct template_limits limits = {.steps = 1000000, .memory = 64 << 20, .output = 1000, .depth = 60};
    for (size_t i = 0; i < COUNT_OF(uses); i++) {
        struct text t = {0};
        text_fmt(&t, "{%% set ints = range(1, 50000) | list %%}{%% set same = range(1, 50000) | list %%}{%% set zeros = [0] * 50000 %%}"
                     "{%% set text = 'a' * 100000 %%}{%% set none_there = 'a' * 50000 ~ 'b' %%}"
                     "{%% for i in range(100000) %%}{%% set x = %s %%}{%% endfor %%}", uses[i]);
        clock_t start = clock();
        expect_refused(t.data, "wanted", &limits);
        cr_expect_lt((double)(clock() - start) / CLOCKS_PER_SEC, 3.0, "%s", uses[i]);
        text_free(&t);
    }
}

Test(template, a_path_ends_where_its_string_ends) {
    expect_text("{% set path = 'a.12'[:3] %}{{ [{'a': range(20) | list}] | map(attribute=path) | first }}", "1");
    expect_text("{{ [{'a': [4, 5]}] | map(attribute='a.1') | first }}", "5");
}

// Damaged sources neither crash nor pass in silence; what one byte can change is tried for a template with everything in it.
Test(template, damaged_sources_are_refused_or_render) {
    static const char source[] = "{%- macro m(a, b=1) -%}{{ a ~ b }}{%- endmacro %}{% set ns = namespace(x=[1, 'q']) %}{# c #}\n"
                                 "{% for k, v in {'a': 1}.items() if v %}{{ loop.index + v * 2 }}{{ m(k) | trim }}{% else %}{% break %}{% endfor %}"
                                 "{{ ns.x[0:1][::-1] if ns.x is defined and not 1 > 2 else \"z\\n\" }}{% raw %}{{{% endraw %}";
    char bent[sizeof source];
    static const char with[] = "{}%#-'\"\\([|.\n\xFF";
    const struct template_limits small = {.steps = 100000, .memory = 1 << 22, .output = 10000, .depth = 60};
    for (size_t i = 0; i + 1 < sizeof source; i++)
        for (size_t k = 0; k < sizeof with; k++) { // the closing NUL too
            memcpy(bent, source, sizeof source);
            bent[i] = with[k];
            struct outcome o = render(bent, sizeof source - 1, NULL, 0, &small);
            cr_assert(o.good ? o.text.len == o.marks.len : strstr(o.err.text, "line ") != NULL, "%s", o.err.text);
            outcome_free(&o);
        }
    for (size_t n = 0; n < sizeof source; n++) {
        struct outcome o = render(source, n, NULL, 0, &small);
        outcome_free(&o);
    }
}
