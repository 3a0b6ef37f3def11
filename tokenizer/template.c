// template.c: the tree of a template and the variables of a conversation become text with provenance.
//
// A scope is a list of names with a link to the scope around it. As in Jinja, each pass of a loop, a macro and a captured
// block have scopes of their own, `if` has none; `set` writes to the innermost scope only, which is why templates carry
// state in namespaces. Macros see the scope they were made in.
#include "tokenizer/template.h"

#include <string.h>

const struct template_limits template_limits_default = {
    .steps = 50000000, .memory = (size_t)512 << 20, .output = (size_t)64 << 20, .depth = 250};

struct template {
    struct pool *pool;
    struct node *root;
};

struct scope {
    struct scope *outer;
    struct dict names;
};

enum flow { GO_ON, BREAK, CONTINUE };

static struct value eval(struct machine *m, struct scope *s, const struct node *n);
static enum flow run_block(struct machine *m, struct scope *s, const struct node *n);

static struct scope *scope_new(struct machine *m, struct scope *outer) {
    struct scope *s = machine_alloc(m, sizeof *s);
    s->outer = outer;
    return s;
}

static void scope_set(struct machine *m, struct scope *s, struct str name, struct value v) {
    dict_set(m, &s->names, (struct value){.kind = V_STRING, .s = name}, v);
}

static struct value scope_get(struct machine *m, const struct scope *s, struct str name) {
    struct value key = {.kind = V_STRING, .s = name};
    for (; s; s = s->outer) {
        const struct value *v = dict_find(m, &s->names, key);
        if (v) return *v;
    }
    const struct builtin *f = builtin_find(FUNCTIONS, name);
    if (f) return (struct value){.kind = V_FUNCTION, .function = f};
    return value_undefined(m, "'%.*s' is undefined", (int)(name.n < 100 ? name.n : 100), name.p);
}

// ---- calls

struct value *call_take(struct call *c, size_t index, const char *name) {
    if (index < c->n) {
        if (c->taken <= index) c->taken = index + 1;
        return &c->at[index];
    }
    for (size_t i = 0; name && i < c->n_named; i++)
        if (value_is(c->named[i].key, name)) {
            c->named_taken++;
            return &c->named[i].value;
        }
    return NULL;
}

struct value call_need(struct machine *m, struct call *c, size_t index, const char *name) {
    struct value *v = call_take(c, index, name);
    if (!v) machine_fail(m, "%s needs the argument \"%s\"", c->what, name);
    return *v;
}

static void call_done(struct machine *m, const struct call *c) {
    if (c->taken < c->n) machine_fail(m, "%s takes %zu arguments, %zu are given", c->what, c->taken, c->n);
    if (c->named_taken < c->n_named) machine_fail(m, "%s was given a named argument that is not known here", c->what);
}

struct value call_builtin(struct machine *m, const struct builtin *b, struct value self, struct call *c) {
    c->what = b->name;
    if (!b->run) machine_fail(m, "\"%s\" %s", b->name, b->hint);
    machine_enter(m);
    struct value v = b->run(m, self, c);
    call_done(m, c);
    machine_leave(m);
    return v;
}

static struct value call_macro(struct machine *m, const struct macro *macro, struct call *c) {
    const struct node *n = macro->node;
    struct scope *s = scope_new(m, macro->scope);
    struct builder text = {0}, *outer = m->out;
    c->what = "a macro";
    for (size_t i = 0; i < n->n; i++) {
        const struct node *p = n->kid[i];
        struct value *given = i < c->n ? call_take(c, i, NULL) : NULL;
        for (size_t k = 0; !given && k < c->n_named; k++)
            if (c->named[k].key.s.n == p->name.n && !memcmp(c->named[k].key.s.p, p->name.p, p->name.n)) {
                given = &c->named[k].value;
                c->named_taken++;
            }
        struct value v = given  ? *given
                         : p->a ? eval(m, s, p->a)
                                : value_undefined(m, "parameter '%.*s' was not provided", (int)(p->name.n < 100 ? p->name.n : 100), p->name.p);
        scope_set(m, s, p->name, v);
    }
    call_done(m, c);
    m->out = &text;
    run_block(m, s, n->c);
    m->out = outer;
    return built(&text);
}

struct value call_value(struct machine *m, struct value f, struct call *c) {
    machine_enter(m);
    struct value v;
    if (f.kind == V_MACRO) v = call_macro(m, f.macro, c);
    else if (f.kind == V_FUNCTION) v = call_builtin(m, f.function, value_none(), c);
    else if (f.kind == V_METHOD) v = call_builtin(m, f.method->what, f.method->self, c);
    else if (f.kind == V_UNDEFINED) machine_fail(m, "%.*s, but is called", (int)(f.s.n < 200 ? f.s.n : 200), f.s.p);
    else machine_fail(m, "%s cannot be called", value_kind_name(f));
    machine_leave(m);
    return v;
}

static struct call arguments(struct machine *m, struct scope *s, const struct node *n) {
    struct call c = {.at = machine_alloc(m, n->n * sizeof *c.at), .named = machine_alloc(m, n->n * sizeof *c.named)};
    for (size_t i = 0; i < n->n; i++) {
        const struct node *k = n->kid[i];
        if (k->kind == N_KEYWORD) {
            struct value name = {.kind = V_STRING, .s = k->name};
            c.named[c.n_named++] = (struct pair){name, eval(m, s, k->a)};
        } else {
            if (c.n_named) machine_fail(m, "an argument without a name follows one with a name");
            c.at[c.n++] = eval(m, s, k);
        }
    }
    return c;
}

// ---- expressions

static bool compared(struct machine *m, int op, struct value a, struct value b) {
    switch (op) {
    case 'E': return value_equal(m, a, b);
    case 'N': return !value_equal(m, a, b);
    case 'i': return value_in(m, a, b);
    case 'n': return !value_in(m, a, b);
    default: break;
    }
    int order = value_order(m, a, b);
    return op == '<' ? order < 0 : op == '>' ? order > 0 : op == 'L' ? order <= 0 : order >= 0;
}

static struct value eval_compare(struct machine *m, struct scope *s, const struct node *n) {
    struct value left = eval(m, s, n->a);
    bool holds = true;
    for (size_t i = 0; i < n->n && holds; i++) { // a < b < c is both
        struct value right = eval(m, s, n->kid[i]->a);
        holds = compared(m, n->kid[i]->op, left, right);
        left = right;
    }
    return value_bool(holds);
}

static struct value eval_list(struct machine *m, struct scope *s, const struct node *n) {
    if (n->kind == N_DICT) {
        struct value d = value_dict(m);
        for (size_t i = 0; i < n->n; i += 2) {
            struct value key = eval(m, s, n->kid[i]);
            dict_set(m, d.dict, key, eval(m, s, n->kid[i + 1]));
        }
        return d;
    }
    struct value l = value_list(m);
    l.tuple = n->kind == N_TUPLE;
    for (size_t i = 0; i < n->n; i++) list_add(m, l.list, eval(m, s, n->kid[i]));
    return l;
}

static struct value eval_signed(struct machine *m, const struct node *n, struct value v) {
    if (v.kind == V_BOOL) v = value_int(v.truth);
    if (v.kind != V_INT && v.kind != V_REAL) machine_fail(m, "a sign in front of %s has no meaning", value_kind_name(v));
    if (n->kind == N_PLUS) return v;
    return v.kind == V_REAL ? value_real(-v.real) : value_binary(m, '-', value_int(0), v);
}

static struct value eval_slice(struct machine *m, struct scope *s, const struct node *n) {
    struct value of = eval(m, s, n->a), bound[3];
    for (size_t i = 0; i < 3; i++) bound[i] = n->kid[i] ? eval(m, s, n->kid[i]) : value_none();
    return value_slice(m, of, bound);
}

static struct value eval_concat(struct machine *m, struct scope *s, const struct node *n) {
    struct builder b = {0};
    for (size_t i = 0; i < n->n; i++) build_value(m, &b, eval(m, s, n->kid[i]));
    return built(&b);
}

// Unknown names fail when they are reached, as in Jinja: a template may have branches that are never taken here.
static struct value eval_filter(struct machine *m, struct scope *s, const struct node *n, struct value self) {
    const struct builtin *b = builtin_find(n->kind == N_TEST ? TESTS : FILTERS, n->name);
    struct call c = arguments(m, s, n);
    m->line = n->line;
    if (!b) machine_fail(m, "the %s \"%.*s\" is not known here", n->kind == N_TEST ? "test" : "filter", (int)(n->name.n < 60 ? n->name.n : 60), n->name.p);
    return call_builtin(m, b, self, &c);
}

static struct value eval_node(struct machine *m, struct scope *s, const struct node *n) {
    struct value v;
    struct call c;
    switch (n->kind) {
    case N_LITERAL: return n->value;
    case N_NAME: return scope_get(m, s, n->name);
    case N_LIST:
    case N_TUPLE:
    case N_DICT: return eval_list(m, s, n);
    case N_ATTRIBUTE: return value_attribute(m, eval(m, s, n->a), n->name);
    case N_ITEM:
        v = eval(m, s, n->a);
        return value_item(m, v, eval(m, s, n->b));
    case N_SLICE: return eval_slice(m, s, n);
    case N_CALL:
        v = eval(m, s, n->a);
        c = arguments(m, s, n);
        m->line = n->line;
        return call_value(m, v, &c);
    case N_FILTER: return eval_filter(m, s, n, eval(m, s, n->a));
    case N_TEST:
        return value_bool(eval_filter(m, s, n, eval(m, s, n->a)).truth != n->op);
    case N_NOT: return value_bool(!value_true(eval(m, s, n->a)));
    case N_NEGATE:
    case N_PLUS: return eval_signed(m, n, eval(m, s, n->a));
    case N_BINARY:
        v = eval(m, s, n->a);
        return value_binary(m, n->op, v, eval(m, s, n->b));
    case N_CONCAT: return eval_concat(m, s, n);
    case N_COMPARE: return eval_compare(m, s, n);
    case N_AND:
    case N_OR: // the value that decides
        v = eval(m, s, n->kid[0]);
        for (size_t i = 1; i < n->n && value_true(v) == (n->kind == N_AND); i++) v = eval(m, s, n->kid[i]);
        return v;
    default:
        assert(n->kind == N_CONDITION);
        if (value_true(eval(m, s, n->b))) return eval(m, s, n->a);
        return n->c ? eval(m, s, n->c) : value_undefined(m, "the inline if without else is undefined");
    }
}

static struct value eval(struct machine *m, struct scope *s, const struct node *n) {
    m->line = n->line;
    machine_step(m, 0);
    machine_enter(m);
    struct value v = eval_node(m, s, n);
    machine_leave(m);
    return v;
}

// ---- statements

static void assign(struct machine *m, struct scope *s, const struct node *target, struct value v) {
    if (target->kind == N_NAME) {
        scope_set(m, s, target->name, v);
        return;
    }
    struct value space = scope_get(m, s, target->name);
    if (space.kind != V_NAMESPACE)
        machine_fail(m, "only attributes of a namespace can be set, %.*s is %s", (int)(target->name.n < 60 ? target->name.n : 60),
                     target->name.p, value_kind_name(space));
    dict_set(m, space.dict, target->value, v);
}

// One value to one target, or its items to several.
static void assign_all(struct machine *m, struct scope *s, const struct node *n, struct value v) {
    if (!n->op) {
        assign(m, s, n->kid[0], v);
        return;
    }
    const struct list *l = value_iterate(m, v);
    if (l->n != n->n) machine_fail(m, "%zu names are to take %zu values", n->n, l->n);
    for (size_t i = 0; i < n->n; i++) assign(m, s, n->kid[i], l->at[i]);
}

static enum flow run_for(struct machine *m, struct scope *s, const struct node *n) {
    struct list *over = value_iterate(m, eval(m, s, n->a));
    if (n->b) {
        struct list *kept = value_list(m).list;
        for (size_t i = 0; i < over->n; i++) {
            struct scope *inner = scope_new(m, s);
            assign_all(m, inner, n, over->at[i]);
            if (value_true(eval(m, inner, n->b))) list_add(m, kept, over->at[i]);
        }
        over = kept;
    }
    struct loop *l = machine_alloc(m, sizeof *l);
    *l = (struct loop){.over = over};
    for (; l->index < over->n; l->index++) {
        struct scope *inner = scope_new(m, s);
        scope_set(m, inner, value_text("loop").s, (struct value){.kind = V_LOOP, .loop = l});
        assign_all(m, inner, n, over->at[l->index]);
        if (run_block(m, inner, n->c->kid[0]) == BREAK) break;
    }
    if (!over->n && n->c->n > 1) return run_block(m, scope_new(m, s), n->c->kid[1]);
    return GO_ON;
}

// Filters around a captured text: from the literal that stands for it outwards.
static struct value filtered(struct machine *m, struct scope *s, const struct node *n, const struct node *hole, struct value text) {
    if (n == hole) return text;
    if (n->kind != N_FILTER) machine_fail(m, "only filters may stand behind a captured block");
    machine_enter(m);
    struct value v = eval_filter(m, s, n, filtered(m, s, n->a, hole, text));
    machine_leave(m);
    return v;
}

static struct value capture(struct machine *m, struct scope *s, const struct node *n) {
    struct builder text = {0}, *outer = m->out;
    m->out = &text;
    run_block(m, scope_new(m, s), n->c);
    m->out = outer;
    return filtered(m, s, n->a, n->b, built(&text));
}

static enum flow run_if(struct machine *m, struct scope *s, const struct node *n) {
    for (size_t i = 0; i < n->n; i += 2)
        if (value_true(eval(m, s, n->kid[i]))) return run_block(m, s, n->kid[i + 1]);
    return n->b ? run_block(m, s, n->b) : GO_ON;
}

static enum flow run_node(struct machine *m, struct scope *s, const struct node *n) {
    m->line = n->line;
    machine_step(m, 0);
    switch (n->kind) {
    case N_TEXT: build_string(m, m->out, n->value); return GO_ON;
    case N_PRINT: build_value(m, m->out, eval(m, s, n->a)); return GO_ON;
    case N_IF: return run_if(m, s, n);
    case N_FOR: return run_for(m, s, n);
    case N_BLOCK: return run_block(m, s, n);
    case N_SET: assign_all(m, s, n, eval(m, s, n->a)); return GO_ON;
    case N_CAPTURE: assign(m, s, n->kid[0], capture(m, s, n)); return GO_ON;
    case N_FILTERED: build_value(m, m->out, capture(m, s, n)); return GO_ON;
    case N_MACRO: {
        struct macro *macro = machine_alloc(m, sizeof *macro);
        *macro = (struct macro){n, s};
        scope_set(m, s, n->name, (struct value){.kind = V_MACRO, .macro = macro});
        return GO_ON;
    }
    case N_BREAK: return BREAK;
    default: assert(n->kind == N_CONTINUE); return CONTINUE;
    }
}

static enum flow run_block(struct machine *m, struct scope *s, const struct node *n) {
    enum flow flow = GO_ON;
    machine_enter(m);
    for (size_t i = 0; i < n->n && flow == GO_ON; i++) flow = run_node(m, s, n->kid[i]);
    machine_leave(m);
    return flow;
}

// ---- the two calls

struct template *template_open(const char *source, size_t n, struct err *err) {
    assert(source || !n);
    jmp_buf failed;
    struct machine *m = mem_alloc(sizeof *m, "chat template");
    *m = (struct machine){.memory_max = ((size_t)16 << 20) + 64 * n, .steps_max = UINT64_MAX, .depth_max = 150, .err = err, .failed = &failed};
    if (n > (size_t)1 << 24) {
        mem_free(m);
        err_set(err, "a chat template of %zu MB: at most 16 make sense", n >> 20);
        return NULL;
    }
    if (setjmp(failed)) {
        machine_close(m);
        mem_free(m);
        return NULL;
    }
    struct node *root = template_parse(m, source, n);
    struct template *t = mem_alloc(sizeof *t, "chat template");
    *t = (struct template){m->pool, root};
    mem_free(m);
    return t;
}

void template_free(struct template *t) {
    if (!t) return;
    struct machine m = {.pool = t->pool};
    machine_close(&m);
    mem_free(t);
}

static struct value messages_value(struct machine *m, const struct template_input *in) {
    struct value all = value_list(m);
    for (size_t i = 0; i < in->n_messages; i++) {
        const struct template_message *from = &in->messages[i];
        struct value one = value_dict(m);
        dict_set(m, one.dict, value_text("role"), value_bytes(m, from->role.p, from->role.n, FROM_TEMPLATE));
        dict_set(m, one.dict, value_text("content"), value_bytes(m, from->content.p, from->content.n, FROM_CONTENT));
        list_add(m, all.list, one);
    }
    return all;
}

static void set_variables(struct machine *m, const struct template_input *in) {
    for (size_t i = 0; i < in->n_variables; i++) {
        const struct template_variable *v = &in->variables[i];
        enum origin from = v->trusted ? FROM_TEMPLATE : FROM_CONTENT;
        struct value value = v->json ? value_json(m, v->value.p, v->value.n, from, v->name) : value_bytes(m, v->value.p, v->value.n, from);
        scope_set(m, m->globals, value_text(v->name).s, value);
    }
    if (in->messages) scope_set(m, m->globals, value_text("messages").s, messages_value(m, in));
    scope_set(m, m->globals, value_text("add_generation_prompt").s, value_bool(in->add_generation_prompt));
}

bool template_render(const struct template *t, const struct template_input *in, struct text *text, struct text *marks, struct err *err) {
    assert(t && in && text && marks);
    const struct template_limits *limits = in->limits ? in->limits : &template_limits_default;
    jmp_buf failed;
    struct machine *m = mem_alloc(sizeof *m, "chat template");
    struct builder *out = mem_alloc(sizeof *out, "chat template");
    *m = (struct machine){.memory_max = limits->memory, .steps_max = limits->steps, .depth_max = limits->depth, .err = err,
                          .failed = &failed, .out = out, .now = in->now};
    out->max = limits->output;
    if (setjmp(failed)) {
        machine_close(m);
        mem_free(out);
        mem_free(m);
        return false;
    }
    m->globals = scope_new(m, NULL);
    set_variables(m, in);
    run_block(m, m->globals, t->root);
    text_add(text, out->p ? out->p : "", out->n);
    for (size_t i = 0; i < out->n; i++) {
        char mark = out->mark ? (char)out->mark[i] : out->origin == FROM_CONTENT;
        text_add(marks, &mark, 1);
    }
    text_add(marks, "", 0);
    machine_close(m);
    mem_free(out);
    mem_free(m);
    return true;
}
