// template_parse.c: the source of a chat template becomes a tree.
//
// First tokens, then a recursive descent with the precedences of Jinja 3:
//     condition: or-expression [if or-expression [else condition]]
//     or < and < not < comparisons, in < + - < ~ < * / // % < ** < unary < postfix . [] () < filters |, tests is
//
// White space, as transformers sets it (trim_blocks, lstrip_blocks, newline kept off the end):
//     {%- -%}    strip white space on that side, of all lines          {{- -}} and {#- -#} too
//     %} #}      eat one newline behind them, unless written +%}
//     {% {#      eat blanks between the start of their line and them, unless written {%+
#include "tokenizer/template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- tokens

enum token_kind { T_TEXT, T_OPEN, T_CLOSE, T_BLOCK, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_REAL, T_OPERATOR, T_END };
struct token {
    unsigned char kind, op; // op: a character, or E == N != L <= G >= D // P **
    int line;
    struct str s;
    struct value value;
};

struct lexer {
    struct machine *m;
    const char *p;
    size_t n, at;
    bool line_start; // what stands before `at` ended a line
    struct token *token;
    size_t count, cap;
};

static struct token *token_add(struct lexer *x, enum token_kind kind) {
    if (x->count == x->cap) machine_grow(x->m, (void **)&x->token, &x->cap, x->count, sizeof *x->token);
    struct token *t = &x->token[x->count++];
    *t = (struct token){.kind = (unsigned char)kind, .line = x->m->line};
    return t;
}

// Moves on by n bytes, which a regular expression of Jinja's would have matched at once.
static void skip(struct lexer *x, size_t n) {
    for (size_t i = 0; i < n; i++) x->m->line += x->p[x->at + i] == '\n';
    if (n) x->line_start = x->p[x->at + n - 1] == '\n';
    x->at += n;
}

static size_t blanks_at(const struct lexer *x, size_t at) {
    size_t begin = at;
    for (uint32_t code; at < x->n;) {
        size_t size = char_size(x->p + at, x->n - at, &code);
        if (!python_space(code)) break;
        at += size;
    }
    return at - begin;
}

static bool here(const struct lexer *x, size_t at, const char *word) {
    size_t n = strlen(word);
    return x->n - at >= n && !memcmp(x->p + at, word, n);
}

// The text in front of a tag at `tag`, with what its sign and the rules take off the end.
static void lex_text(struct lexer *x, size_t tag, char sign, bool variable) {
    size_t from = x->at, to = tag;
    struct value all = {.kind = V_STRING, .s = {x->p + from, to - from, NULL}};
    if (sign == '-') {
        to = from + string_strip(x->m, all, NULL, false, true).s.n;
    } else if (sign != '+' && !variable) {
        size_t line = to;
        while (line > from && x->p[line - 1] != '\n') line--;
        if ((line > from || x->line_start) && line + blanks_at(x, line) >= to) to = line;
    }
    if (to > from) token_add(x, T_TEXT)->s = (struct str){x->p + from, to - from, NULL};
    skip(x, tag - from);
}

// Behind a tag's end: what the end eats. `at` is on the end mark; sign is what stood before it.
static void lex_end(struct lexer *x, char sign, bool block) {
    size_t n = 2;
    if (sign == '-') n += blanks_at(x, x->at + 2);
    else if (block && sign != '+' && x->at + 2 < x->n && x->p[x->at + 2] == '\n') n++;
    skip(x, n);
}

static bool name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

static size_t escape_code(struct lexer *x, size_t at, size_t digits, int base, uint32_t *code) {
    size_t n = 0;
    for (*code = 0; n < digits && at + n < x->n; n++) {
        char c = x->p[at + n];
        int d = digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
        if (d >= base) break;
        *code = *code * (uint32_t)base + (uint32_t)d;
    }
    return n;
}

static void build_code(struct lexer *x, struct builder *b, uint32_t code) {
    char c[4];
    size_t n = 0;
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        machine_fail(x->m, "an escape names U+%X, which is no character", (unsigned)code);
    if (code < 0x80) c[n++] = (char)code;
    else if (code < 0x800) c[n++] = (char)(0xC0 | code >> 6);
    else if (code < 0x10000) c[n++] = (char)(0xE0 | code >> 12), c[n++] = (char)(0x80 | (code >> 6 & 63));
    else c[n++] = (char)(0xF0 | code >> 18), c[n++] = (char)(0x80 | (code >> 12 & 63)), c[n++] = (char)(0x80 | (code >> 6 & 63));
    if (code >= 0x80) c[n++] = (char)(0x80 | (code & 63));
    build_bytes(x->m, b, c, n, FROM_TEMPLATE);
}

// One escape, `at` behind its backslash; returns its length. As in Python: an unknown one keeps the backslash.
static size_t lex_escape(struct lexer *x, size_t at, struct builder *b) {
    static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
    char c = x->p[at];
    const char *known = strchr(from, c);
    uint32_t code;
    if (c && known) return build_code(x, b, (unsigned char)to[known - from]), 1;
    if (c == '\n') return 1;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits) {
        if (escape_code(x, at + 1, digits, 16, &code) != digits) machine_fail(x->m, "\\%c needs %zu hexadecimal digits", c, digits);
        return build_code(x, b, code), digits + 1;
    }
    if (c == 'N') machine_fail(x->m, "the escape \\N{...} is not known here");
    size_t octal = escape_code(x, at, 3, 8, &code);
    if (octal) return build_code(x, b, code), octal;
    build_text(x->m, b, "\\");
    return 0; // the character itself follows as it is
}

static void lex_string(struct lexer *x) {
    char quote = x->p[x->at];
    size_t at = x->at + 1, plain = at;
    struct builder b = {0};
    for (;; at++) {
        if (at >= x->n) machine_fail(x->m, "a string has no end");
        if (x->p[at] == quote) break;
        if (x->p[at] != '\\') continue;
        build_bytes(x->m, &b, x->p + plain, at - plain, FROM_TEMPLATE);
        if (++at >= x->n) machine_fail(x->m, "a string has no end");
        plain = at + lex_escape(x, at, &b);
        if (plain > at) at = plain - 1;
    }
    build_bytes(x->m, &b, x->p + plain, at - plain, FROM_TEMPLATE);
    token_add(x, T_STRING)->value = built(&b);
    skip(x, at + 1 - x->at);
}

static void lex_number(struct lexer *x) {
    char text[64];
    size_t n = 0, at = x->at;
    bool real = false, hex = here(x, at, "0x") || here(x, at, "0X");
    for (; at < x->n && n + 1 < sizeof text; at++) {
        char c = x->p[at], next = at + 1 < x->n ? x->p[at + 1] : ' ';
        if (c == '_' && digit(next)) continue;
        bool part = digit(c) || (hex && (c == 'x' || c == 'X' || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')));
        if (!hex && c == '.' && !real && digit(next)) part = real = true;
        if (!hex && (c == 'e' || c == 'E') && (digit(next) || ((next == '-' || next == '+') && at + 2 < x->n && digit(x->p[at + 2])))) {
            part = real = true;
            text[n++] = c;
            c = x->p[++at];
        }
        if (!part || n + 2 >= sizeof text) break;
        text[n++] = c;
    }
    text[n] = '\0';
    struct token *t = token_add(x, real ? T_REAL : T_INT);
    errno = 0;
    if (real) t->value = value_real(strtod(text, NULL));
    else t->value = value_int(strtoll(text, NULL, hex ? 16 : 10));
    if (errno) machine_fail(x->m, "the number %s is too large", text);
    skip(x, at - x->at);
}

static void lex_operator(struct lexer *x) {
    static const char *const two[] = {"==E", "!=N", "<=L", ">=G", "//D", "**P"};
    for (size_t i = 0; i < COUNT_OF(two); i++)
        if (x->n - x->at >= 2 && !memcmp(x->p + x->at, two[i], 2)) {
            token_add(x, T_OPERATOR)->op = (unsigned char)two[i][2];
            skip(x, 2);
            return;
        }
    char c = x->p[x->at];
    if (!c || !strchr("+-*/%~<>=.,:|()[]{}", c))
        machine_fail(x->m, c > ' ' && c < 127 ? "the character '%c' has no meaning here" : "the byte 0x%02x has no meaning here",
                     c > ' ' && c < 127 ? c : (unsigned char)c);
    token_add(x, T_OPERATOR)->op = (unsigned char)c;
    skip(x, 1);
}

// The inside of {{ }} or {% %} up to and with its end; `}}` inside brackets closes brackets.
static void lex_inside(struct lexer *x, bool block) {
    const char *end = block ? "%}" : "}}";
    for (int open = 0;;) {
        skip(x, blanks_at(x, x->at));
        if (x->at >= x->n) machine_fail(x->m, "\"%s\" is missing", end);
        char c = x->p[x->at], sign = (c == '-' || (c == '+' && block)) && here(x, x->at + 1, end) ? c : ' ';
        if (open == 0 && (sign != ' ' || here(x, x->at, end))) {
            token_add(x, block ? T_BLOCK_END : T_CLOSE);
            if (sign != ' ') skip(x, 1);
            lex_end(x, sign, block);
            return;
        }
        if (name_start(c)) {
            size_t n = 1;
            while (x->at + n < x->n && (name_start(x->p[x->at + n]) || digit(x->p[x->at + n]))) n++;
            token_add(x, T_NAME)->s = (struct str){x->p + x->at, n, NULL};
            skip(x, n);
        } else if (digit(c)) {
            lex_number(x);
        } else if (c == '"' || c == '\'') {
            lex_string(x);
        } else {
            if (strchr("([{", c)) open++;
            if (strchr(")]}", c) && --open < 0) machine_fail(x->m, "'%c' closes nothing", c);
            lex_operator(x);
        }
    }
}

// {% raw %} ... {% endraw %}, `at` on the tag; false when the tag is another one.
static bool lex_raw(struct lexer *x, size_t inside) {
    size_t at = inside + blanks_at(x, inside);
    if (!here(x, at, "raw")) return false;
    at += 3 + blanks_at(x, at + 3);
    char sign = at < x->n && x->p[at] == '-' ? '-' : ' ';
    if (!here(x, at + (sign == '-'), "%}")) return false;
    skip(x, at + (sign == '-') - x->at);
    lex_end(x, sign, true);
    for (size_t tag = x->at; tag + 2 <= x->n; tag++) {
        if (!here(x, tag, "{%")) continue;
        char before = tag + 2 < x->n ? x->p[tag + 2] : ' ';
        at = tag + 2 + (before == '-' || before == '+');
        at += blanks_at(x, at);
        if (!here(x, at, "endraw")) continue;
        at += 6 + blanks_at(x, at + 6);
        char after = at < x->n ? x->p[at] : ' ';
        at += after == '-' || after == '+';
        if (!here(x, at, "%}")) continue;
        lex_text(x, tag, before, false);
        skip(x, at - x->at);
        lex_end(x, after, true);
        return true;
    }
    machine_fail(x->m, "{%% raw %%} has no {%% endraw %%}");
}

static void lex_comment(struct lexer *x, size_t inside) {
    size_t end = inside;
    while (end < x->n && !here(x, end, "#}")) end++;
    if (end >= x->n) machine_fail(x->m, "a comment has no end");
    char sign = end > inside ? x->p[end - 1] : ' ';
    skip(x, end - x->at);
    lex_end(x, sign, true);
}

static void lex(struct lexer *x) {
    x->line_start = true;
    while (x->at < x->n) {
        size_t tag = x->at;
        while (tag < x->n && !(x->p[tag] == '{' && tag + 1 < x->n && strchr("{%#", x->p[tag + 1]) && x->p[tag + 1])) tag++;
        if (tag >= x->n) {
            token_add(x, T_TEXT)->s = (struct str){x->p + x->at, x->n - x->at, NULL};
            break;
        }
        char kind = x->p[tag + 1], sign = tag + 2 < x->n && (x->p[tag + 2] == '-' || x->p[tag + 2] == '+') ? x->p[tag + 2] : ' ';
        size_t inside = tag + 2 + (sign != ' ');
        lex_text(x, tag, sign, kind == '{');
        if (kind == '#') {
            lex_comment(x, inside);
        } else if (kind == '{' || !lex_raw(x, inside)) {
            token_add(x, kind == '{' ? T_OPEN : T_BLOCK);
            skip(x, inside - x->at);
            lex_inside(x, kind == '%');
        }
    }
    token_add(x, T_END);
}

// ---- the parser

struct parser {
    struct machine *m;
    const struct token *t; // the next one
    int loops;             // open, for break and continue
};

static struct node *node_new(struct parser *p, enum node_kind kind) {
    struct node *n = machine_alloc(p->m, sizeof *n);
    n->kind = (unsigned char)kind;
    n->line = p->m->line = p->t->line;
    return n;
}

static void node_add(struct parser *p, struct node *n, struct node *kid) {
    if (n->n == n->cap) machine_grow(p->m, (void **)&n->kid, &n->cap, n->n, sizeof(struct node *));
    n->kid[n->n++] = kid;
}

static bool is_op(const struct parser *p, int op) { return p->t->kind == T_OPERATOR && p->t->op == op; }
static bool is_name(const struct parser *p, const char *name) { return p->t->kind == T_NAME && str_is(p->t->s, name); }
static bool take_op(struct parser *p, int op) { return is_op(p, op) ? p->t++, true : false; }
static bool take_name(struct parser *p, const char *name) { return is_name(p, name) ? p->t++, true : false; }

static _Noreturn void expected(struct parser *p, const char *what) {
    static const char *const kinds[] = {"text", "{{", "}}", "{%", "%}", "", "a string", "a number", "a number", "", "the end of the template"};
    p->m->line = p->t->line;
    if (p->t->kind == T_NAME) machine_fail(p->m, "expected %s, found \"%.*s\"", what, (int)(p->t->s.n < 60 ? p->t->s.n : 60), p->t->s.p);
    if (p->t->kind == T_OPERATOR) machine_fail(p->m, "expected %s, found the operator '%c'", what, p->t->op);
    machine_fail(p->m, "expected %s, found %s", what, kinds[p->t->kind]);
}

static void need_op(struct parser *p, int op, const char *what) {
    if (!take_op(p, op)) expected(p, what);
}

static struct str need_name(struct parser *p, const char *what) {
    if (p->t->kind != T_NAME) expected(p, what);
    return p->t++->s;
}

static struct node *parse_expression(struct parser *p);
static struct node *parse_or(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filter);

// Items up to a closing bracket, commas between and perhaps behind them.
static void parse_items(struct parser *p, struct node *to, int close) {
    while (!is_op(p, close)) {
        node_add(p, to, parse_expression(p));
        if (to->kind == N_DICT) {
            need_op(p, ':', "':' in a dictionary");
            node_add(p, to, parse_expression(p));
        }
        if (!take_op(p, ',')) break;
    }
    need_op(p, close, "',' or the closing bracket");
}

static struct node *parse_literal(struct parser *p, struct value v) {
    struct node *n = node_new(p, N_LITERAL);
    n->value = v;
    p->t++;
    return n;
}

static struct node *parse_name(struct parser *p) {
    static const char *const reserved[] = {"and", "or", "not", "in", "is", "if", "else", "elif", "for"};
    struct str s = p->t->s;
    if (str_is(s, "true") || str_is(s, "True")) return parse_literal(p, value_bool(true));
    if (str_is(s, "false") || str_is(s, "False")) return parse_literal(p, value_bool(false));
    if (str_is(s, "none") || str_is(s, "None")) return parse_literal(p, value_none());
    for (size_t i = 0; i < COUNT_OF(reserved); i++)
        if (str_is(s, reserved[i])) expected(p, "a value");
    struct node *n = node_new(p, N_NAME);
    n->name = s;
    p->t++;
    return n;
}

static struct node *parse_primary(struct parser *p) {
    if (p->t->kind == T_NAME) return parse_name(p);
    if (p->t->kind == T_INT || p->t->kind == T_REAL) return parse_literal(p, p->t->value);
    if (p->t->kind == T_STRING) {
        struct node *n = parse_literal(p, p->t->value);
        for (; p->t->kind == T_STRING; p->t++) { // neighbours are one string
            struct builder b = {0};
            build_string(p->m, &b, n->value);
            build_string(p->m, &b, p->t->value);
            n->value = built(&b);
        }
        return n;
    }
    struct node *n;
    if (is_op(p, '[') || is_op(p, '{')) {
        n = node_new(p, is_op(p, '[') ? N_LIST : N_DICT);
        int close = p->t++->op == '[' ? ']' : '}';
        return parse_items(p, n, close), n;
    }
    if (!is_op(p, '(')) expected(p, "a value");
    n = node_new(p, N_TUPLE);
    p->t++;
    if (take_op(p, ')')) return n;
    struct node *first = parse_expression(p);
    if (take_op(p, ')')) return first;
    node_add(p, n, first);
    need_op(p, ',', "',' or ')'");
    parse_items(p, n, ')');
    return n;
}

static void parse_arguments(struct parser *p, struct node *call) {
    need_op(p, '(', "'('");
    while (!is_op(p, ')')) {
        if (is_op(p, '*') || is_op(p, 'P')) machine_fail(p->m, "arguments spread by * or ** are not known here");
        struct node *argument;
        if (p->t->kind == T_NAME && p->t[1].kind == T_OPERATOR && p->t[1].op == '=') {
            argument = node_new(p, N_KEYWORD);
            argument->name = p->t->s;
            p->t += 2;
            argument->a = parse_expression(p);
        } else {
            argument = parse_expression(p);
        }
        node_add(p, call, argument);
        if (!take_op(p, ',')) break;
    }
    need_op(p, ')', "',' or ')' in the arguments");
}

static struct node *parse_subscript(struct parser *p, struct node *of) {
    struct node *n = node_new(p, N_ITEM), *bound[3] = {0};
    p->t++;
    bool slice = false;
    size_t i = 0;
    for (; i < 3; i++) {
        if (!is_op(p, ':') && !is_op(p, ']')) bound[i] = parse_expression(p);
        if (!take_op(p, ':')) break;
        slice = true;
    }
    need_op(p, ']', "']'");
    n->a = of;
    if (!slice) {
        if (!bound[0]) machine_fail(p->m, "[] needs an index");
        n->b = bound[0];
        return n;
    }
    n->kind = N_SLICE;
    for (i = 0; i < 3; i++) node_add(p, n, bound[i]);
    return n;
}

static struct node *parse_postfix(struct parser *p, struct node *n) {
    int deeper = p->m->depth;
    for (;;) {
        struct node *outer;
        if (is_op(p, '.')) {
            p->t++;
            outer = node_new(p, N_ATTRIBUTE);
            outer->a = n;
            if (p->t->kind == T_INT) {
                outer->kind = N_ITEM;
                outer->b = parse_literal(p, p->t->value);
            } else {
                outer->name = need_name(p, "a name behind '.'");
            }
        } else if (is_op(p, '[')) {
            outer = parse_subscript(p, n);
        } else if (is_op(p, '(')) {
            outer = node_new(p, N_CALL);
            outer->a = n;
            parse_arguments(p, outer);
        } else {
            break;
        }
        machine_enter(p->m); // each link is one more level of the tree
        n = outer;
    }
    p->m->depth = deeper;
    return n;
}

static struct node *parse_test(struct parser *p, struct node *of) {
    struct node *n = node_new(p, N_TEST);
    n->a = of;
    n->op = take_name(p, "not");
    n->name = need_name(p, "a test behind \"is\"");
    if (is_op(p, '(')) {
        parse_arguments(p, n);
    } else if (p->t->kind == T_NAME ? !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "is") &&
                                          !is_name(p, "if") && !is_name(p, "not") && !is_name(p, "in")
                                    : p->t->kind == T_STRING || p->t->kind == T_INT || p->t->kind == T_REAL || is_op(p, '[') || is_op(p, '{')) {
        node_add(p, n, parse_postfix(p, parse_primary(p)));
    }
    return n;
}

static struct node *parse_filter(struct parser *p, struct node *of) {
    struct node *n = node_new(p, N_FILTER);
    n->a = of;
    n->name = need_name(p, "a filter behind '|'");
    if (is_op(p, '(')) parse_arguments(p, n);
    return n;
}

static struct node *parse_filters(struct parser *p, struct node *n) {
    int deeper = p->m->depth;
    for (;;) {
        if (take_op(p, '|')) {
            n = parse_filter(p, n);
        } else if (take_name(p, "is")) {
            n = parse_test(p, n);
        } else if (is_op(p, '(')) {
            struct node *call = node_new(p, N_CALL);
            call->a = n;
            parse_arguments(p, call);
            n = call;
        } else {
            break;
        }
        machine_enter(p->m);
    }
    p->m->depth = deeper;
    return n;
}

static struct node *parse_unary(struct parser *p, bool with_filter) {
    machine_enter(p->m);
    struct node *n;
    if (is_op(p, '-') || is_op(p, '+')) {
        n = node_new(p, is_op(p, '-') ? N_NEGATE : N_PLUS);
        p->t++;
        n->a = parse_unary(p, false);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filters(p, n);
    machine_leave(p->m);
    return n;
}

static struct node *parse_factor(struct parser *p) { return parse_unary(p, true); }

// Left-associative operators of one precedence.
static struct node *parse_left(struct parser *p, const char *ops, struct node *(*next)(struct parser *)) {
    struct node *n = next(p);
    int deeper = p->m->depth;
    while (p->t->kind == T_OPERATOR && strchr(ops, p->t->op)) {
        machine_enter(p->m);
        struct node *outer = node_new(p, N_BINARY);
        outer->op = p->t++->op;
        outer->a = n;
        outer->b = next(p);
        n = outer;
    }
    p->m->depth = deeper;
    return n;
}

static struct node *parse_power(struct parser *p) { return parse_left(p, "P", parse_factor); }
static struct node *parse_product(struct parser *p) { return parse_left(p, "*/D%", parse_power); }

static struct node *parse_concat(struct parser *p) {
    struct node *first = parse_product(p);
    if (!is_op(p, '~')) return first;
    struct node *n = node_new(p, N_CONCAT);
    node_add(p, n, first);
    while (take_op(p, '~')) node_add(p, n, parse_product(p));
    return n;
}

static struct node *parse_sum(struct parser *p) { return parse_left(p, "+-", parse_concat); }

static struct node *parse_compare(struct parser *p) {
    struct node *first = parse_sum(p), *n = NULL;
    for (;;) {
        int op = 0;
        if (p->t->kind == T_OPERATOR && strchr("ENLG<>", p->t->op)) op = p->t->op;
        else if (is_name(p, "in")) op = 'i';
        else if (is_name(p, "not") && p->t[1].kind == T_NAME && str_is(p->t[1].s, "in")) op = 'n';
        if (!op) return n ? n : first;
        if (!n) {
            n = node_new(p, N_COMPARE);
            n->a = first;
        }
        struct node *with = node_new(p, N_COMPARED);
        p->t += op == 'n' ? 2 : 1;
        with->op = (unsigned char)op;
        with->a = parse_sum(p);
        node_add(p, n, with);
    }
}

static struct node *parse_not(struct parser *p) {
    if (!is_name(p, "not")) return parse_compare(p);
    machine_enter(p->m);
    struct node *n = node_new(p, N_NOT);
    p->t++;
    n->a = parse_not(p);
    machine_leave(p->m);
    return n;
}

static struct node *parse_and(struct parser *p) {
    struct node *first = parse_not(p);
    if (!is_name(p, "and")) return first;
    struct node *n = node_new(p, N_AND);
    node_add(p, n, first);
    while (take_name(p, "and")) node_add(p, n, parse_not(p));
    return n;
}

static struct node *parse_or(struct parser *p) {
    struct node *first = parse_and(p);
    if (!is_name(p, "or")) return first;
    struct node *n = node_new(p, N_OR);
    node_add(p, n, first);
    while (take_name(p, "or")) node_add(p, n, parse_and(p));
    return n;
}

static struct node *parse_expression(struct parser *p) {
    machine_enter(p->m);
    struct node *n = parse_or(p);
    int deeper = p->m->depth;
    while (is_name(p, "if")) {
        machine_enter(p->m);
        struct node *outer = node_new(p, N_CONDITION);
        p->t++;
        outer->a = n;
        outer->b = parse_or(p);
        outer->c = take_name(p, "else") ? parse_expression(p) : NULL;
        n = outer;
    }
    p->m->depth = deeper;
    machine_leave(p->m);
    return n;
}

// Expressions with commas between are a tuple.
static struct node *parse_values(struct parser *p, struct node *(*each)(struct parser *)) {
    struct node *first = each(p);
    if (!is_op(p, ',')) return first;
    struct node *n = node_new(p, N_TUPLE);
    node_add(p, n, first);
    while (take_op(p, ',') && p->t->kind != T_BLOCK_END && p->t->kind != T_CLOSE) node_add(p, n, each(p));
    return n;
}

// ---- statements

static struct node *parse_block(struct parser *p, const char *const *ends);

static void need_end(struct parser *p) {
    if (p->t->kind != T_BLOCK_END) expected(p, "%}");
    p->t++;
}

static struct node *parse_if(struct parser *p, struct node *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    n->kind = N_IF; // kid: condition, body, condition, body; b: else
    do {
        node_add(p, n, parse_values(p, parse_expression));
        need_end(p);
        node_add(p, n, parse_block(p, ends));
    } while (take_name(p, "elif"));
    if (take_name(p, "else")) {
        need_end(p);
        n->b = parse_block(p, ends + 2);
    }
    p->t++;
    return n;
}

static struct node *parse_target(struct parser *p) {
    struct node *n = node_new(p, N_NAME);
    n->name = need_name(p, "the name of a variable");
    return n;
}

static struct node *parse_for(struct parser *p, struct node *n) {
    static const char *const ends[] = {"else", "endfor", NULL};
    n->kind = N_FOR; // kid: targets; a: over; b: if; c: FOR's body in kid[0] of a block, else in kid[1]
    bool bracket = take_op(p, '(');
    node_add(p, n, parse_target(p));
    while (take_op(p, ',')) {
        n->op = 1;
        if (p->t->kind == T_NAME && !is_name(p, "in")) node_add(p, n, parse_target(p));
    }
    if (bracket) need_op(p, ')', "')'");
    if (!take_name(p, "in")) expected(p, "\"in\"");
    n->a = parse_values(p, parse_or);
    if (take_name(p, "if")) n->b = parse_expression(p);
    if (is_name(p, "recursive")) machine_fail(p->m, "recursive loops are not known here");
    need_end(p);
    p->loops++;
    n->c = node_new(p, N_BLOCK);
    node_add(p, n->c, parse_block(p, ends));
    p->loops--;
    if (take_name(p, "else")) {
        need_end(p);
        node_add(p, n->c, parse_block(p, ends + 1));
    }
    p->t++;
    return n;
}

static struct node *parse_set(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endset", NULL};
    n->kind = N_SET; // kid: targets, an attribute of a name among them; a: the value
    do {
        struct node *target = parse_target(p);
        if (take_op(p, '.')) {
            target->kind = N_ATTRIBUTE;
            target->value = (struct value){.kind = V_STRING, .s = need_name(p, "a name behind '.'")};
        }
        node_add(p, n, target);
    } while (take_op(p, ','));
    n->op = n->n > 1;
    if (take_op(p, '=')) {
        n->a = parse_values(p, parse_expression);
        return n;
    }
    n->kind = N_CAPTURE; // a: filters around it, applied to the literal b; c: the body
    if (n->op) expected(p, "'='");
    n->b = node_new(p, N_LITERAL);
    n->a = parse_filters(p, n->b);
    need_end(p);
    n->c = parse_block(p, ends);
    p->t++;
    return n;
}

static struct node *parse_macro(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endmacro", NULL};
    n->kind = N_MACRO; // kid: KEYWORD with the name and perhaps a default in a; c: the body
    n->name = need_name(p, "the name of the macro");
    need_op(p, '(', "'('");
    while (!is_op(p, ')')) {
        struct node *parameter = node_new(p, N_KEYWORD);
        parameter->name = need_name(p, "the name of a parameter");
        if (take_op(p, '=')) parameter->a = parse_expression(p);
        node_add(p, n, parameter);
        if (!take_op(p, ',')) break;
    }
    need_op(p, ')', "',' or ')'");
    need_end(p);
    int loops = p->loops;
    p->loops = 0;
    n->c = parse_block(p, ends);
    p->loops = loops;
    p->t++;
    return n;
}

static struct node *parse_filtered(struct parser *p, struct node *n) {
    static const char *const ends[] = {"endfilter", NULL};
    n->kind = N_FILTERED; // as CAPTURE, but printed
    n->b = node_new(p, N_LITERAL);
    n->a = parse_filters(p, parse_filter(p, n->b));
    need_end(p);
    n->c = parse_block(p, ends);
    p->t++;
    return n;
}

// One statement; the cursor is behind "{%".
static struct node *parse_statement(struct parser *p) {
    static const char *const refused[] = {"call", "include", "import", "from", "extends", "block", "autoescape", "trans", "do", "with", "debug"};
    struct node *n = node_new(p, N_BLOCK);
    struct str name = need_name(p, "a statement");
    static const char *const marked[] = {"endgeneration", NULL}; // transformers' mark of what the model wrote: no meaning here
    if (str_is(name, "if")) parse_if(p, n);
    else if (str_is(name, "for")) parse_for(p, n);
    else if (str_is(name, "set")) parse_set(p, n);
    else if (str_is(name, "macro")) parse_macro(p, n);
    else if (str_is(name, "filter")) parse_filtered(p, n);
    else if (str_is(name, "generation")) need_end(p), n = parse_block(p, marked), p->t++;
    else if (str_is(name, "break") || str_is(name, "continue")) {
        n->kind = str_is(name, "break") ? N_BREAK : N_CONTINUE;
        if (!p->loops) machine_fail(p->m, "\"%.*s\" outside of a loop", (int)name.n, name.p);
    } else {
        for (size_t i = 0; i < COUNT_OF(refused); i++)
            if (str_is(name, refused[i])) machine_fail(p->m, "the statement \"%s\" is not known here", refused[i]);
        machine_fail(p->m, "\"%.*s\" is no statement, or closes nothing that is open", (int)(name.n < 60 ? name.n : 60), name.p);
    }
    need_end(p);
    return n;
}

// Statements up to one of the tags `ends`, whose name is then next; NULL: up to the end.
static struct node *parse_block(struct parser *p, const char *const *ends) {
    machine_enter(p->m);
    struct node *block = node_new(p, N_BLOCK);
    for (;;) {
        if (p->t->kind == T_END) {
            size_t last = 0;
            while (ends && ends[last + 1]) last++;
            if (ends) machine_fail(p->m, "the template ends, but the block of line %d wants \"%s\"", block->line, ends[last]);
            break;
        }
        if (p->t->kind == T_TEXT) {
            struct node *n = node_new(p, N_TEXT);
            n->value = (struct value){.kind = V_STRING, .s = p->t++->s};
            node_add(p, block, n);
        } else if (p->t->kind == T_OPEN) {
            struct node *n = node_new(p, N_PRINT);
            p->t++;
            n->a = parse_values(p, parse_expression);
            if (p->t->kind != T_CLOSE) expected(p, "}}");
            p->t++;
            node_add(p, block, n);
        } else {
            p->t++;
            bool done = false;
            for (size_t i = 0; ends && ends[i] && !done; i++) done = is_name(p, ends[i]);
            if (done) break;
            node_add(p, block, parse_statement(p));
        }
    }
    machine_leave(p->m);
    return block;
}

struct node *template_parse(struct machine *m, const char *source, size_t n) {
    struct lexer x = {.m = m};
    char *copy = machine_alloc(m, n + 1);
    for (size_t i = 0; i < n; i++) { // lines end in \n alone
        bool pair = source[i] == '\r' && i + 1 < n && source[i + 1] == '\n';
        if (!pair) copy[x.n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (x.n && copy[x.n - 1] == '\n') x.n--;
    x.p = copy;
    m->line = 1;
    lex(&x);
    struct parser p = {.m = m, .t = x.token};
    return parse_block(&p, NULL);
}
