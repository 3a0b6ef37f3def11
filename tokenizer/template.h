// template: what the files of the chat template interpreter share, and its two calls.
//
// Published chat templates are Jinja programs. This is an interpreter for the part of Jinja they use, with two things
// Jinja has not: bounds (steps, memory, output, depth; a template is a program from a stranger) and provenance. Every
// byte of every string knows whether the template wrote it or the conversation; copying, slicing, joining and
// replacing keep that, so the rendering can say which of its bytes may become control tokens.
//
//   template_parse.c    source -> tokens -> a tree of nodes; whitespace rules as transformers sets them
//   template_value.c    values, strings with provenance, the builder, JSON and Python spellings
//   template_ops.c      operators, comparisons, attributes, items, slices
//   template.c          the tree -> text: statements, expressions, scopes, calls
//   template_methods.c  methods and functions
//   template_builtin.c  filters and tests
//
// All memory comes from one pool per parse or rendering, freed as a whole; any failure writes one sentence with the
// line of the template and jumps to the entry (longjmp), which frees the pool. So no function below needs a failure
// result, and nothing may be owned across a call. What is not known is refused by name, never ignored.
#ifndef LEHR_TOKENIZER_TEMPLATE_H
#define LEHR_TOKENIZER_TEMPLATE_H

#include "core/core.h"
#include "formats/formats.h"

#include <setjmp.h>
#include <time.h>

// ---- the two calls

struct template;
// NULL when the source is no template of this subset; the sentence names the line and the construct.
struct template *template_open(const char *source, size_t n, struct err *err);
void template_free(struct template *t); // NULL is allowed

struct template_limits {
    uint64_t steps;      // nodes evaluated, and bytes looked at / 64
    size_t memory, output;
    int depth;           // nesting of statements, expressions and calls
};
extern const struct template_limits template_limits_default;

// Variables of a rendering: texts by name, and the members of JSON objects. Bytes are the conversation's unless trusted.
struct template_variable {
    const char *name;
    struct span value; // bytes of a text, or JSON
    bool json, trusted;
};
struct template_message {
    struct span role, content; // the role is trusted, the content is not
};
struct template_input {
    const struct template_variable *variables;
    size_t n_variables;
    const struct template_message *messages; // the variable `messages`, unless NULL
    size_t n_messages;
    bool add_generation_prompt;
    struct tm now;                        // for strftime_now
    const struct template_limits *limits; // NULL: the default
};
// Appends text, and to marks one byte for each byte of it: 0 the template's, 1 the conversation's.
MUST_USE bool template_render(const struct template *t, const struct template_input *in, struct text *text,
                              struct text *marks, struct err *err);

// ---- values

enum value_kind { V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_REAL, V_STRING, V_LIST, V_DICT, V_NAMESPACE, V_LOOP, V_MACRO, V_FUNCTION, V_METHOD };
enum origin { FROM_TEMPLATE, FROM_CONTENT, FROM_BOTH }; // of a string's bytes

struct str { // immutable
    const char *p;
    size_t n;
    const unsigned char *mark; // one per byte, only for FROM_BOTH
};
struct value {
    unsigned char kind, origin;
    bool tuple; // of a list: spelled with parentheses
    union {
        bool truth;
        int64_t integer;
        double real;
        struct str s; // also the sentence of an undefined value
        struct list *list;
        struct dict *dict; // also of a namespace
        struct loop *loop;
        struct macro *macro;
        const struct builtin *function;
        struct method *method;
    };
};
struct list {
    struct value *at;
    size_t n, cap;
};
struct pair {
    struct value key, value;
};
struct dict { // in order of insertion
    struct pair *at;
    size_t n, cap;
};
struct loop {
    const struct list *over;
    size_t index;
};
struct method {
    struct value self;
    const struct builtin *what;
};

// ---- the tree

enum node_kind {
    N_LITERAL, N_NAME, N_LIST, N_TUPLE, N_DICT, N_ATTRIBUTE, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NOT, N_NEGATE, N_PLUS,
    N_BINARY, N_CONCAT, N_COMPARE, N_COMPARED, N_AND, N_OR, N_CONDITION, N_KEYWORD,
    N_TEXT, N_PRINT, N_BLOCK, N_IF, N_FOR, N_SET, N_CAPTURE, N_MACRO, N_FILTERED, N_BREAK, N_CONTINUE,
};
struct node {
    unsigned char kind, op; // op: the operator; in a test: 1 when negated; in a loop: 1 for several targets
    int line;
    struct str name;
    struct value value;        // of a literal
    struct node *a, *b, *c;
    struct node **kid;
    size_t n, cap;
};
struct macro {
    const struct node *node;
    struct scope *scope;
};

// ---- the machine

struct machine { // of one parse or one rendering
    struct pool *pool;
    size_t memory, memory_max, output_max;
    uint64_t steps, steps_max;
    int depth, depth_max, line;
    struct err *err;
    jmp_buf *failed;
    struct builder *out;   // where printing goes
    struct scope *globals; // variables of the rendering
    struct tm now;
};
_Noreturn void machine_fail(struct machine *m, const char *format, ...) PRINTF_LIKE(2, 3);
void *machine_alloc(struct machine *m, size_t bytes); // zeroed
// Makes room for one more in an array inside the pool.
void machine_grow(struct machine *m, void **p, size_t *cap, size_t count, size_t each);
void machine_step(struct machine *m, size_t bytes); // one step, and what looking at so many bytes costs
void machine_enter(struct machine *m);              // one deeper
static inline void machine_leave(struct machine *m) { m->depth--; }
void machine_close(struct machine *m);

// ---- values and strings (template_value.c)

struct builder { // a string being written
    char *p;
    unsigned char *mark; // NULL while all bytes have one origin
    size_t n, cap;
    enum origin origin;
    size_t max; // 0: none
};
void build_bytes(struct machine *m, struct builder *b, const char *p, size_t n, enum origin from);
void build_string(struct machine *m, struct builder *b, struct value s);
void build_text(struct machine *m, struct builder *b, const char *text); // the template's
void build_value(struct machine *m, struct builder *b, struct value v);  // as printing spells it
void build_repr(struct machine *m, struct builder *b, struct value v);   // as Python spells it inside a list
struct json_style {
    int indent; // -1: one line
    bool ascii, sorted;
    struct value between, after_key; // separators
};
void build_json(struct machine *m, struct builder *b, struct value v, const struct json_style *style, int level);
struct value built(const struct builder *b);

static inline struct value value_none(void) { return (struct value){.kind = V_NONE}; }
static inline struct value value_bool(bool x) { return (struct value){.kind = V_BOOL, .truth = x}; }
static inline struct value value_int(int64_t x) { return (struct value){.kind = V_INT, .integer = x}; }
static inline struct value value_real(double x) { return (struct value){.kind = V_REAL, .real = x}; }
struct value value_text(const char *literal); // the template's; borrowed
struct value value_bytes(struct machine *m, const char *p, size_t n, enum origin from); // a copy
struct value value_undefined(struct machine *m, const char *format, ...) PRINTF_LIKE(2, 3);
struct value value_list(struct machine *m);
struct value value_dict(struct machine *m);
void list_add(struct machine *m, struct list *l, struct value v);
void dict_set(struct machine *m, struct dict *d, struct value key, struct value v);
struct value *dict_find(struct machine *m, const struct dict *d, struct value key); // NULL when absent
struct value *dict_named(const struct dict *d, const char *name);
struct value value_json(struct machine *m, const char *bytes, size_t n, enum origin from, const char *name);
const char *value_kind_name(struct value v);
bool value_is(struct value v, const char *text); // a string equal to text
bool str_is(struct str s, const char *text);
struct value string_part(struct value s, size_t from, size_t to); // bytes [from, to)
struct value string_of(struct machine *m, struct value v);        // as printing spells it
size_t string_find(struct machine *m, struct str in, size_t from, struct str what); // SIZE_MAX when absent
size_t string_length(struct machine *m, struct str s);   // in characters
size_t string_at(struct str s, size_t character);         // its byte, at most s.n
struct value string_strip(struct machine *m, struct value s, const struct value *what, bool left, bool right);
bool python_space(uint32_t code);
size_t char_size(const char *p, size_t n, uint32_t *code); // an invalid byte is a character of its own

// ---- operators (template_ops.c)

bool value_true(struct value v);
bool value_equal(struct machine *m, struct value a, struct value b);
int value_order(struct machine *m, struct value a, struct value b); // fails when there is no order
bool value_in(struct machine *m, struct value what, struct value in);
struct value value_binary(struct machine *m, int op, struct value a, struct value b);
struct value value_attribute(struct machine *m, struct value of, struct str name); // of.name
struct value value_item(struct machine *m, struct value of, struct value key);     // of[key]
struct value value_slice(struct machine *m, struct value of, const struct value *bound); // three, none when absent
struct list *value_iterate(struct machine *m, struct value v); // a list of what a loop sees
size_t value_length(struct machine *m, struct value v);

// ---- calls (template.c and template_builtin.c)

struct call { // arguments; every one must be taken
    const char *what; // for sentences
    struct value *at;
    struct pair *named;
    size_t n, n_named, taken, named_taken;
};
struct value *call_take(struct call *c, size_t index, const char *name); // NULL when not given
struct value call_need(struct machine *m, struct call *c, size_t index, const char *name);
struct builtin {
    const char *name;
    struct value (*run)(struct machine *m, struct value self, struct call *c);
    const char *hint; // of a name known but refused
};
enum builtin_table { FILTERS, TESTS, FUNCTIONS, STRING_METHODS, DICT_METHODS, LIST_METHODS };
extern const struct builtin template_functions[], template_string_methods[], template_dict_methods[], template_list_methods[];
const struct builtin *builtin_find(enum builtin_table table, struct str name); // NULL when unknown
struct value call_builtin(struct machine *m, const struct builtin *b, struct value self, struct call *c);
struct value call_value(struct machine *m, struct value f, struct call *c);

struct value string_cased(struct machine *m, struct value s, char rule); // u upper, l lower, c capitalize, t title, T as the filter
struct value string_replace(struct machine *m, struct value self, struct call *c);
struct value string_lines(struct machine *m, struct value s);
struct value dict_items(struct machine *m, const struct dict *d);

// ---- parsing (template_parse.c)

struct node *template_parse(struct machine *m, const char *source, size_t n);

#endif
