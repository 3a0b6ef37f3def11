/* stories.c - writes as many distinct little stories as asked for, and knows what each one costs.
 *
 * The idea.  A story is a walk through a hand-written grammar with memory: a plot is a row of
 * beats, a beat is a set of sentence patterns, a pattern holds words and draws.  Who is where, who
 * owns what and what it looks like is kept in slots and stays true until the end.
 *
 * Invariants.
 *   1. Every random decision goes through choose(n), is uniform among n, and adds log(n) to the
 *      story's surprisal.  There is no other source of chance.
 *   2. Late choice: a decision is made where its first letter is written, never before.
 *   3. If different decisions always write different text, -log P(text) is that sum.  This is not
 *      believed but checked: score() walks the same grammar along a given text, tries every
 *      alternative that agrees with it, and adds the probability of all derivations (--verify).
 *   4. Story i of seed s is a pure function of (s, i).
 *
 * Template signs (stories_patterns.h):
 *   [a|b|c]   one of the alternatives, which may nest        `         a double quote
 *   {table}   a fresh word; never twice the same in one beat, never one that a slot holds
 *   <slot>    the remembered word, drawn when first written; <slot.1> its next field
 *   <H.he>    forms of a person: he his him himself girl; <he> alone means the hero, H
 *   {a}       "a" or "an" by the word that follows; swallows the space after it
 *   A capital first letter ({A}, {Num}, <He>, <Hide>) writes one.
 *   A pattern may begin with guards: "&P " needs slot P to be known, "!P " needs it unknown.
 * Plot signs: words are beats, "/" begins a paragraph, "?x" tells beat x or not, "x|y" one of both.
 *
 * What it does not do: no learning, no weights on choices, no Unicode, no threads.
 */
#include "stories.h"
#include "stories_patterns.h"
#include "stories_words.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_OF(x) (sizeof(x) / sizeof((x)[0]))
#define N_TABLES COUNT_OF(TABLE_TEXTS)
#define N_SLOTS COUNT_OF(SLOT_TEXTS)
#define N_BEATS COUNT_OF(BEAT_TEXTS)
#define N_PLOTS COUNT_OF(PLOT_TEXTS)
#define FIELDS_MAX 3
#define GUARDS_MAX 3
#define STEPS_MAX 40
#define CODE_BYTES (1u << 20)
#define STORY_BYTES 4096
#define CHOICES_MAX 512
#define PATTERNS_WANTED 300
#define REPLAYS_MAX 4000000

static_assert(N_TABLES < 255 && N_SLOTS < 255, "table and slot numbers are one byte in the code");
static_assert(PATTERNS_MAX <= 64, "a set of patterns is one 64-bit mask");

static const char END_MARK[] = "<|endoftext|>";

/* ------------------------------------------------------------------------------------------------
 * The compiled grammar: templates become byte code once, so that a story costs microseconds.
 *
 *   OP_TEXT n, n bytes      OP_DRAW table         OP_SLOT slot form     OP_ARTICLE   OP_CAPITAL
 *   OP_PICK n, n x off16, alternatives that each end with OP_JUMP off16 (offsets in the pattern)
 */
enum op { OP_END, OP_TEXT, OP_DRAW, OP_SLOT, OP_PICK, OP_JUMP, OP_ARTICLE, OP_CAPITAL };

enum form { FORM_FIELD, FORM_HE = FIELDS_MAX, FORM_HIS, FORM_HIM, FORM_HIMSELF, FORM_GIRL };

/* One row for every form of a person, by gender. */
struct form_row {
    const char *name, *female, *male, *thing;
};
static const struct form_row FORM_ROWS[] = {
    {"he", "she", "he", "it"},
    {"his", "her", "his", "its"},
    {"him", "her", "him", "it"},
    {"himself", "herself", "himself", "itself"},
    {"girl", "girl", "boy", "thing"},
};

struct word {
    const unsigned char *field[FIELDS_MAX]; /* byte code of each field, NULL where there is none */
    char gender;                            /* 'f', 'm', or 'n' for all that is not a person */
};

struct table {
    size_t n_words;
    bool has_gender;
    struct word word[ENTRIES_MAX];
};

struct pattern {
    const unsigned char *code;
    size_t n_guards;
    struct { size_t slot; bool wanted; } guard[GUARDS_MAX];
};

struct beat {
    size_t n_patterns;
    struct pattern pattern[PATTERNS_MAX];
};

enum step_kind { STEP_BEAT, STEP_MAYBE, STEP_EITHER, STEP_PARAGRAPH };

struct step {
    enum step_kind kind;
    size_t beat, other;
};

struct plot {
    size_t n_steps;
    struct step step[STEPS_MAX];
};

struct grammar {
    struct table table[N_TABLES];
    size_t slot_table[N_SLOTS];
    size_t hero; /* the slot that <he> means */
    struct beat beat[N_BEATS];
    struct plot prologue, plot[N_PLOTS];
    double log_of[ENTRIES_MAX + 1]; /* log_of[n] = log(n) nats, the cost of one choice among n */
    size_t n_patterns, code_bytes;
    unsigned char code[CODE_BYTES];
};

/* A grammar error is ours, not the user's: say where and stop. */
static _Noreturn void grammar_fail(const char *what, const char *where) {
    fprintf(stderr, "stories: grammar: %s: %s\n", what, where);
    abort();
}

static void code_put(struct grammar *g, unsigned value) {
    if (g->code_bytes == CODE_BYTES) {
        grammar_fail("code buffer full", "CODE_BYTES");
    }
    g->code[g->code_bytes++] = (unsigned char)value;
}

static void code_put_offset(struct grammar *g, size_t at, size_t offset) {
    assert(offset < 65536);
    g->code[at] = (unsigned char)(offset & 255);
    g->code[at + 1] = (unsigned char)(offset >> 8);
}

static size_t code_get_offset(const unsigned char *at) {
    return (size_t)at[0] | (size_t)at[1] << 8;
}

static char ascii_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static char ascii_upper(char c) {
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static bool table_find(const char *name, size_t *found) {
    for (size_t i = 0; i < N_TABLES; i++) {
        if (strcmp(TABLE_TEXTS[i].name, name) == 0) {
            *found = i;
            return true;
        }
    }
    return false;
}

static bool slot_find(const char *name, size_t *found) {
    for (size_t i = 0; i < N_SLOTS; i++) {
        if (strcmp(SLOT_TEXTS[i].name, name) == 0) {
            *found = i;
            return true;
        }
    }
    return false;
}

static bool form_find(const char *name, unsigned *found) {
    if (name[0] >= '1' && name[0] < '0' + FIELDS_MAX && name[1] == '\0') {
        *found = (unsigned)(name[0] - '0');
        return true;
    }
    for (size_t i = 0; i < COUNT_OF(FORM_ROWS); i++) {
        if (strcmp(FORM_ROWS[i].name, name) == 0) {
            *found = (unsigned)(FORM_HE + i);
            return true;
        }
    }
    return false;
}

/* Copies the name between sign and closing sign; returns the text after the closing sign. */
static const char *compile_name(const char *text, char closing, char name[32]) {
    const char *end = strchr(text, closing);
    if (end == NULL || end - text > 31) {
        grammar_fail("name not closed", text);
    }
    memcpy(name, text, (size_t)(end - text));
    name[end - text] = '\0';
    return end + 1;
}

static const char *compile_draw(struct grammar *g, const char *text) {
    char name[32];
    const char *rest = compile_name(text, '}', name);
    if (name[0] != ascii_lower(name[0])) {
        name[0] = ascii_lower(name[0]);
        code_put(g, OP_CAPITAL);
    }
    if (strcmp(name, "a") == 0) {
        if (*rest != ' ') {
            grammar_fail("no space after {a}", text);
        }
        code_put(g, OP_ARTICLE);
        return rest + 1;
    }
    size_t table;
    if (!table_find(name, &table)) {
        grammar_fail("no such table", name);
    }
    code_put(g, OP_DRAW);
    code_put(g, (unsigned)table);
    return rest;
}

static const char *compile_slot(struct grammar *g, const char *text) {
    char name[32];
    const char *rest = compile_name(text, '>', name);
    char *dot = strchr(name, '.');
    char *form_name = dot != NULL ? dot + 1 : name + strlen(name);
    size_t slot = g->hero;
    unsigned form = FORM_FIELD;
    if (dot != NULL) {
        *dot = '\0';
    }
    bool found = slot_find(name, &slot);
    char *capital = dot != NULL ? form_name : name;
    if ((dot != NULL || !found) && *capital != ascii_lower(*capital)) {
        *capital = ascii_lower(*capital);
        code_put(g, OP_CAPITAL);
        found = found || slot_find(name, &slot);
    }
    if (!found && (dot != NULL || !form_find(name, &form))) {
        grammar_fail("no such slot", name);
    }
    if (dot != NULL && !form_find(form_name, &form)) {
        grammar_fail("no such form", form_name);
    }
    code_put(g, OP_SLOT);
    code_put(g, (unsigned)slot);
    code_put(g, form);
    return rest;
}

static const char *compile_text(struct grammar *g, const char *text, size_t base, int depth);

static const char *compile_pick(struct grammar *g, const char *text, size_t base, int depth) {
    unsigned n = 1;
    int level = 0;
    for (const char *p = text; !(level == 0 && *p == ']'); p++) {
        if (*p == '\0') {
            grammar_fail("[ not closed", text);
        }
        level += (*p == '[') - (*p == ']');
        n += level == 0 && *p == '|';
    }
    code_put(g, OP_PICK);
    code_put(g, n);
    size_t table = g->code_bytes;
    size_t jump[ENTRIES_MAX];
    assert(n >= 2 && n <= ENTRIES_MAX);
    for (unsigned i = 0; i < 2 * n; i++) {
        code_put(g, 0);
    }
    for (unsigned i = 0; i < n; i++) {
        code_put_offset(g, table + 2 * i, g->code_bytes - base);
        text = compile_text(g, text, base, depth + 1) + 1; /* past | or ] */
        code_put(g, OP_JUMP);
        jump[i] = g->code_bytes;
        code_put(g, 0);
        code_put(g, 0);
    }
    for (unsigned i = 0; i < n; i++) {
        code_put_offset(g, jump[i], g->code_bytes - base);
    }
    return text;
}

/* Compiles up to the end, or inside brackets up to the | or ] of this level. */
static const char *compile_text(struct grammar *g, const char *text, size_t base, int depth) {
    while (*text != '\0') {
        if (depth > 0 && (*text == '|' || *text == ']')) {
            return text;
        }
        if (*text == '[') {
            text = compile_pick(g, text + 1, base, depth);
        } else if (*text == '{') {
            text = compile_draw(g, text + 1);
        } else if (*text == '<') {
            text = compile_slot(g, text + 1);
        } else {
            size_t n = strcspn(text, depth > 0 ? "[{<|]" : "[{<");
            assert(n >= 1 && n <= 255);
            code_put(g, OP_TEXT);
            code_put(g, (unsigned)n);
            for (size_t i = 0; i < n; i++) {
                code_put(g, text[i] == '`' ? '"' : (unsigned char)text[i]);
            }
            text += n;
        }
    }
    if (depth > 0) {
        grammar_fail("[ not closed", "end of pattern");
    }
    return text;
}

static const unsigned char *compile(struct grammar *g, const char *text) {
    size_t base = g->code_bytes;
    compile_text(g, text, base, 0);
    code_put(g, OP_END);
    return g->code + base;
}

static void compile_word(struct grammar *g, struct word *word, const char *entry) {
    char part[256];
    word->gender = 'n';
    for (size_t f = 0; f < FIELDS_MAX; f++) {
        size_t n = strcspn(entry, "/");
        assert(n < sizeof part);
        memcpy(part, entry, n);
        part[n] = '\0';
        if (f == 1 && (strcmp(part, "f") == 0 || strcmp(part, "m") == 0)) {
            word->gender = part[0];
        }
        word->field[f] = compile(g, part);
        if (entry[n] == '\0') {
            return;
        }
        entry += n + 1;
    }
    grammar_fail("too many fields", entry);
}

static void compile_table(struct grammar *g, size_t index) {
    struct table *table = &g->table[index];
    const char *const *entries = TABLE_TEXTS[index].entries;
    for (; table->n_words < ENTRIES_MAX && entries[table->n_words] != NULL; table->n_words++) {
        for (size_t i = 0; i < table->n_words; i++) {
            if (strcmp(entries[i], entries[table->n_words]) == 0) {
                grammar_fail("word twice in a table", entries[i]);
            }
        }
        struct word *word = &table->word[table->n_words];
        compile_word(g, word, entries[table->n_words]);
        table->has_gender = table->has_gender || word->gender != 'n';
    }
}

static void compile_pattern(struct grammar *g, struct pattern *pattern, const char *text) {
    while (*text == '&' || *text == '!') {
        char name[32];
        bool wanted = *text == '&';
        text = compile_name(text + 1, ' ', name);
        assert(pattern->n_guards < GUARDS_MAX);
        if (!slot_find(name, &pattern->guard[pattern->n_guards].slot)) {
            grammar_fail("no such slot in guard", name);
        }
        pattern->guard[pattern->n_guards++].wanted = wanted;
    }
    pattern->code = compile(g, text);
}

static size_t beat_find(const char *name, size_t length) {
    for (size_t i = 0; i < N_BEATS; i++) {
        if (strlen(BEAT_TEXTS[i].name) == length &&
            strncmp(BEAT_TEXTS[i].name, name, length) == 0) {
            return i;
        }
    }
    grammar_fail("no such beat", name);
}

static void compile_plot(struct plot *plot, const char *text) {
    for (;;) {
        text += strspn(text, " ");
        size_t n = strcspn(text, " ");
        if (n == 0) {
            return;
        }
        assert(plot->n_steps < STEPS_MAX);
        struct step *step = &plot->step[plot->n_steps++];
        const char *bar = memchr(text, '|', n);
        if (*text == '/') {
            step->kind = STEP_PARAGRAPH;
        } else if (*text == '?') {
            step->kind = STEP_MAYBE;
            step->beat = beat_find(text + 1, n - 1);
        } else if (bar != NULL) {
            step->kind = STEP_EITHER;
            step->beat = beat_find(text, (size_t)(bar - text));
            step->other = beat_find(bar + 1, (size_t)(text + n - bar - 1));
        } else {
            step->kind = STEP_BEAT;
            step->beat = beat_find(text, n);
        }
        text += n;
    }
}

/* No two patterns of the grammar may be the same text: it would be counted twice. */
static void grammar_check_distinct(void) {
    for (size_t b = 0; b < N_BEATS; b++) {
        for (size_t i = 0; BEAT_TEXTS[b].patterns[i] != NULL; i++) {
            for (size_t c = 0; c <= b; c++) {
                size_t end = c == b ? i : PATTERNS_MAX;
                for (size_t j = 0; j < end && BEAT_TEXTS[c].patterns[j] != NULL; j++) {
                    if (strcmp(BEAT_TEXTS[b].patterns[i], BEAT_TEXTS[c].patterns[j]) == 0) {
                        grammar_fail("pattern twice", BEAT_TEXTS[b].patterns[i]);
                    }
                }
            }
        }
    }
}

static struct grammar *grammar_new(void) {
    struct grammar *g = calloc(1, sizeof *g);
    if (g == NULL) {
        fprintf(stderr, "stories: no memory: %zu bytes for the grammar\n", sizeof *g);
        exit(1);
    }
    grammar_check_distinct();
    if (!slot_find("H", &g->hero)) {
        grammar_fail("no such slot", "H");
    }
    for (size_t n = 1; n <= ENTRIES_MAX; n++) {
        g->log_of[n] = log((double)n);
    }
    for (size_t i = 0; i < N_SLOTS; i++) {
        if (!table_find(SLOT_TEXTS[i].table, &g->slot_table[i])) {
            grammar_fail("no such table", SLOT_TEXTS[i].table);
        }
    }
    for (size_t i = 0; i < N_TABLES; i++) {
        compile_table(g, i);
    }
    for (size_t b = 0; b < N_BEATS; b++) {
        struct beat *beat = &g->beat[b];
        for (; BEAT_TEXTS[b].patterns[beat->n_patterns] != NULL; beat->n_patterns++) {
            const char *text = BEAT_TEXTS[b].patterns[beat->n_patterns];
            compile_pattern(g, &beat->pattern[beat->n_patterns], text);
        }
        g->n_patterns += beat->n_patterns;
    }
    compile_plot(&g->prologue, PROLOGUE_TEXT);
    for (size_t i = 0; i < N_PLOTS; i++) {
        compile_plot(&g->plot[i], PLOT_TEXTS[i].steps);
    }
    return g;
}

/* ------------------------------------------------------------------------------------------------
 * Chance: splitmix64 keyed by (seed, story, attempt), so any story can be written alone.
 */
static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rng_start(uint64_t seed, uint64_t index, uint64_t attempt) {
    uint64_t state = mix64(seed + 0x9e3779b97f4a7c15u);
    state = mix64(state ^ (index * 0xd1342543de82ef95u + 1));
    return mix64(state + attempt * 0x9e3779b97f4a7c15u);
}

/* Uniform below n; the bias of the multiply is n / 2^32, far below any sum printed here. */
static unsigned rng_below(uint64_t *state, unsigned n) {
    *state += 0x9e3779b97f4a7c15u;
    return (unsigned)(((mix64(*state) >> 32) * n) >> 32);
}

/* ------------------------------------------------------------------------------------------------
 * A story being written, or being followed along a given text.
 */
struct memory {
    int word;    /* -1 until the slot is first written */
    char gender; /* known as soon as "girl" or "she" is written, before the name; 0 until then */
};

struct choice {
    unsigned char taken, n;
};

enum mode { MODE_WRITE, MODE_FOLLOW, MODE_LOOSE };

struct story {
    const struct grammar *grammar;
    enum mode mode;
    uint64_t rng;
    double nats;
    struct memory memory[N_SLOTS];
    uint64_t held[N_TABLES];  /* entries that slots hold */
    uint64_t drawn[N_TABLES]; /* entries drawn in this beat */
    const char *gap;          /* what separates the next beat from the text before it */
    bool article, capital;    /* owed to the next letter */
    /* Following: the text, and the choices; the first n_forced of them are dictated. */
    const char *target;
    size_t target_bytes;
    bool dead;
    size_t n_choices, n_forced;
    struct choice choice[CHOICES_MAX];
    size_t n_bytes;
    char text[STORY_BYTES];
};

static void story_begin(struct story *s, const struct grammar *g) {
    s->grammar = g;
    s->nats = 0;
    for (size_t i = 0; i < N_SLOTS; i++) {
        s->memory[i] = (struct memory){.word = -1, .gender = 0};
    }
    memset(s->held, 0, sizeof s->held);
    memset(s->drawn, 0, sizeof s->drawn);
    s->gap = "";
    s->article = false;
    s->capital = false;
    s->dead = false;
    s->n_choices = 0;
    s->n_bytes = 0;
}

/* The only source of chance.  Following a text, undictated choices start at alternative 0. */
static unsigned choose(struct story *s, unsigned n) {
    assert(n >= 1 && n <= ENTRIES_MAX);
    if (s->dead || n == 1) {
        return 0;
    }
    assert(s->n_choices < CHOICES_MAX);
    struct choice *choice = &s->choice[s->n_choices];
    if (s->mode == MODE_WRITE) {
        choice->taken = (unsigned char)rng_below(&s->rng, n);
    } else if (s->n_choices >= s->n_forced) {
        choice->taken = 0;
    }
    choice->n = (unsigned char)n;
    s->n_choices++;
    s->nats += s->grammar->log_of[n];
    return choice->taken;
}

static unsigned mask_count(uint64_t mask) {
    unsigned n = 0;
    for (; mask != 0; mask &= mask - 1) {
        n++;
    }
    return n;
}

/* Uniform among the set bits. */
static size_t choose_bit(struct story *s, uint64_t mask) {
    assert(mask != 0);
    for (unsigned k = choose(s, mask_count(mask)); k > 0; k--) {
        mask &= mask - 1;
    }
    size_t bit = 0;
    for (; (mask & 1) == 0; mask >>= 1) {
        bit++;
    }
    return bit;
}

static uint64_t mask_below(size_t n) {
    return n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

static void write_byte(struct story *s, char c) {
    assert(s->n_bytes < STORY_BYTES);
    if (s->mode != MODE_WRITE && (s->n_bytes >= s->target_bytes || s->target[s->n_bytes] != c)) {
        s->dead = true;
        return;
    }
    s->text[s->n_bytes++] = c;
}

static void write_text(struct story *s, const char *text, size_t n) {
    if (n == 0) {
        return;
    }
    for (; *s->gap != '\0' && !s->dead; s->gap++) {
        write_byte(s, *s->gap);
    }
    char first = text[0];
    if (s->article) {
        bool silent_h = n >= 6 && strncmp(text, "honest", 6) == 0;
        bool vowel = silent_h || strchr("aeiouAEIOU", first) != NULL;
        write_byte(s, s->capital ? 'A' : 'a');
        if (vowel && !s->dead) {
            write_byte(s, 'n');
        }
        if (!s->dead) {
            write_byte(s, ' ');
        }
    } else if (s->capital) {
        first = ascii_upper(first);
    }
    s->article = false;
    s->capital = false;
    if (!s->dead) {
        write_byte(s, first);
    }
    for (size_t i = 1; i < n && !s->dead; i++) {
        write_byte(s, text[i]);
    }
}

static void expand(struct story *s, const unsigned char *code);

static void expand_draw(struct story *s, size_t index) {
    const struct table *table = &s->grammar->table[index];
    uint64_t allowed = mask_below(table->n_words) & ~s->drawn[index] & ~s->held[index];
    size_t word = choose_bit(s, s->mode == MODE_LOOSE ? mask_below(table->n_words) : allowed);
    s->drawn[index] |= UINT64_C(1) << word;
    expand(s, table->word[word].field[0]);
}

/* Binds the slot if this is its first mention; returns its word. */
static const struct word *slot_word(struct story *s, size_t slot) {
    size_t index = s->grammar->slot_table[slot];
    const struct table *table = &s->grammar->table[index];
    struct memory *memory = &s->memory[slot];
    if (s->mode == MODE_LOOSE) {
        return &table->word[choose_bit(s, mask_below(table->n_words))];
    }
    if (memory->word < 0) {
        uint64_t allowed = mask_below(table->n_words) & ~s->held[index];
        for (size_t i = 0; memory->gender != 0 && i < table->n_words; i++) {
            if (table->word[i].gender != memory->gender) {
                allowed &= ~(UINT64_C(1) << i);
            }
        }
        size_t word = choose_bit(s, allowed);
        memory->word = (int)word;
        memory->gender = table->word[word].gender;
        s->held[index] |= UINT64_C(1) << word;
    }
    return &table->word[memory->word];
}

static char slot_gender(struct story *s, size_t slot) {
    struct memory *memory = &s->memory[slot];
    if (!s->grammar->table[s->grammar->slot_table[slot]].has_gender) {
        return 'n';
    }
    if (s->mode == MODE_LOOSE) {
        return "fm"[choose(s, 2)];
    }
    if (memory->gender == 0) {
        memory->gender = "fm"[choose(s, 2)];
    }
    return memory->gender;
}

static void expand_slot(struct story *s, size_t slot, unsigned form) {
    if (form < FIELDS_MAX) {
        const struct word *word = slot_word(s, slot);
        assert(word->field[form] != NULL);
        expand(s, word->field[form]);
        return;
    }
    char gender = slot_gender(s, slot);
    const struct form_row *row = &FORM_ROWS[form - FORM_HE];
    const char *text = gender == 'f' ? row->female : gender == 'm' ? row->male : row->thing;
    write_text(s, text, strlen(text));
}

static void expand(struct story *s, const unsigned char *code) {
    const unsigned char *p = code;
    while (!s->dead) {
        switch (*p) {
        case OP_END:
            return;
        case OP_TEXT:
            write_text(s, (const char *)p + 2, p[1]);
            p += 2 + p[1];
            break;
        case OP_DRAW:
            expand_draw(s, p[1]);
            p += 2;
            break;
        case OP_SLOT:
            expand_slot(s, p[1], p[2]);
            p += 3;
            break;
        case OP_PICK:
            p = code + code_get_offset(p + 2 + 2 * choose(s, p[1]));
            break;
        case OP_JUMP:
            p = code + code_get_offset(p + 1);
            break;
        case OP_ARTICLE:
            s->article = true;
            p++;
            break;
        default:
            assert(*p == OP_CAPITAL);
            s->capital = true;
            p++;
            break;
        }
    }
}

static bool pattern_fits(const struct story *s, const struct pattern *pattern) {
    for (size_t i = 0; i < pattern->n_guards; i++) {
        bool known = s->memory[pattern->guard[i].slot].word >= 0;
        if (known != pattern->guard[i].wanted) {
            return false;
        }
    }
    return true;
}

static void tell(struct story *s, size_t index) {
    const struct beat *beat = &s->grammar->beat[index];
    uint64_t fitting = 0;
    for (size_t i = 0; i < beat->n_patterns; i++) {
        if (pattern_fits(s, &beat->pattern[i])) {
            fitting |= UINT64_C(1) << i;
        }
    }
    if (s->dead) {
        return;
    }
    if (fitting == 0) {
        grammar_fail("no pattern fits", BEAT_TEXTS[index].name);
    }
    memset(s->drawn, 0, sizeof s->drawn);
    expand(s, beat->pattern[choose_bit(s, fitting)].code);
    s->gap = " ";
}

static void tell_plot(struct story *s, const struct plot *plot) {
    for (size_t i = 0; i < plot->n_steps && !s->dead; i++) {
        const struct step *step = &plot->step[i];
        switch (step->kind) {
        case STEP_PARAGRAPH:
            s->gap = "\n\n";
            break;
        case STEP_MAYBE:
            if (choose(s, 2) == 0) {
                tell(s, step->beat);
            }
            break;
        case STEP_EITHER:
            tell(s, choose(s, 2) == 0 ? step->beat : step->other);
            break;
        case STEP_BEAT:
            tell(s, step->beat);
            break;
        }
    }
}

/* Returns the number of the plot. */
static size_t tell_story(struct story *s) {
    tell_plot(s, &s->grammar->prologue);
    size_t plot = choose(s, (unsigned)N_PLOTS);
    tell_plot(s, &s->grammar->plot[plot]);
    return plot;
}

/* ------------------------------------------------------------------------------------------------
 * Scoring: depth-first search over the choices.  Each replay runs the grammar from the start with
 * the first choices dictated and dies at the first byte that differs; then the last choice made
 * moves on to its next alternative.  Late choice keeps this to a few hundred short replays.
 */
struct score {
    double log_p;          /* log of the summed probability of all derivations; -inf if none */
    size_t n_derivations;
    size_t furthest;       /* the first byte that no derivation reaches */
    bool gave_up;          /* more than REPLAYS_MAX replays: log_p is a lower bound */
};

static double log_add(double a, double b) {
    double high = a > b ? a : b;
    double low = a > b ? b : a;
    return low == -INFINITY ? high : high + log1p(exp(low - high));
}

/* Moves to the next list of choices; false when all have been tried. */
static bool choices_advance(struct story *s) {
    size_t depth = s->n_choices;
    while (depth > 0 && s->choice[depth - 1].taken + 1 == s->choice[depth - 1].n) {
        depth--;
    }
    if (depth == 0) {
        return false;
    }
    s->choice[depth - 1].taken++;
    s->n_forced = depth;
    return true;
}

static struct score score_text(struct story *s, const struct grammar *g, const char *text,
                               size_t n_bytes) {
    struct score score = {.log_p = -INFINITY};
    s->mode = MODE_FOLLOW;
    s->target = text;
    s->target_bytes = n_bytes;
    s->n_forced = 0;
    for (size_t replay = 0;; replay++) {
        if (replay == REPLAYS_MAX) {
            score.gave_up = true;
            return score;
        }
        story_begin(s, g);
        tell_story(s);
        if (!s->dead && s->n_bytes == n_bytes) {
            score.n_derivations++;
            score.log_p = log_add(score.log_p, -s->nats);
        }
        if (s->n_bytes > score.furthest) {
            score.furthest = s->n_bytes;
        }
        if (!choices_advance(s)) {
            return score;
        }
    }
}

/* Bytes at the start of the text that one pattern can write if nothing is remembered; 0 if none. */
static size_t loose_match_pattern(struct story *s, const struct grammar *g,
                                  const struct pattern *pattern, const char *text, size_t n_bytes) {
    size_t longest = 0;
    s->mode = MODE_LOOSE;
    s->target = text;
    s->target_bytes = n_bytes;
    s->n_forced = 0;
    do {
        story_begin(s, g);
        expand(s, pattern->code);
        bool whole = !s->dead && (s->n_bytes == n_bytes || strchr(" \n", text[s->n_bytes]) != NULL);
        if (whole && s->n_bytes > longest) {
            longest = s->n_bytes;
        }
    } while (choices_advance(s));
    return longest;
}

/* Bytes of the text that are covered by patterns of the grammar, whatever the memory says. */
static size_t loose_cover(struct story *s, const struct grammar *g, const char *text,
                          size_t n_bytes) {
    size_t covered = 0;
    for (size_t at = 0; at < n_bytes;) {
        size_t longest = 0;
        if (text[at] == ' ' || text[at] == '\n') {
            covered++;
            at++;
            continue;
        }
        for (size_t b = 0; b < N_BEATS; b++) {
            for (size_t i = 0; i < g->beat[b].n_patterns; i++) {
                size_t n = loose_match_pattern(s, g, &g->beat[b].pattern[i], text + at,
                                               n_bytes - at);
                longest = n > longest ? n : longest;
            }
        }
        covered += longest;
        at += longest;
        while (longest == 0 && at < n_bytes) { /* skip what is not known up to the next sentence */
            char c = text[at++];
            if (at < n_bytes && strchr(".!?\"\n", c) != NULL && strchr(" \n", text[at]) != NULL) {
                break;
            }
        }
    }
    return covered;
}

/* ------------------------------------------------------------------------------------------------
 * Distinctness: a growing set of 64-bit text hashes.  Equal hashes count as duplicates.
 */
struct hash_set {
    uint64_t *cell; /* 0 is an empty cell */
    size_t n_cells, n_used;
};

static void *checked_calloc(size_t n, size_t size, const char *purpose) {
    void *memory = calloc(n, size);
    if (memory == NULL) {
        fprintf(stderr, "stories: no memory: %zu x %zu bytes for %s\n", n, size, purpose);
        exit(1);
    }
    return memory;
}

static uint64_t hash_text(const char *text, size_t n) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    }
    hash = mix64(hash);
    return hash != 0 ? hash : 1;
}

static bool hash_set_insert(struct hash_set *set, uint64_t hash) {
    size_t i = hash & (set->n_cells - 1);
    while (set->cell[i] != 0) {
        if (set->cell[i] == hash) {
            return false;
        }
        i = (i + 1) & (set->n_cells - 1);
    }
    set->cell[i] = hash;
    set->n_used++;
    return true;
}

/* False if the hash is already in the set. */
static bool hash_set_add(struct hash_set *set, uint64_t hash) {
    if (2 * (set->n_used + 1) > set->n_cells) {
        struct hash_set bigger = {.n_cells = set->n_cells == 0 ? 4096 : 2 * set->n_cells};
        bigger.cell = checked_calloc(bigger.n_cells, sizeof *bigger.cell, "the set of stories");
        for (size_t i = 0; i < set->n_cells; i++) {
            if (set->cell[i] != 0) {
                hash_set_insert(&bigger, set->cell[i]);
            }
        }
        free(set->cell);
        *set = bigger;
    }
    return hash_set_insert(set, hash);
}

/* ------------------------------------------------------------------------------------------------
 * The program: options, corpus, entropy, verify, score.
 */
struct options {
    uint64_t n_stories, seed, first, bytes, verify;
    const char *out, *score;
    bool jsonl, entropy, count, help;
};

enum option_kind { OPTION_FLAG, OPTION_NUMBER, OPTION_PATH };

struct option_row {
    const char *name, *short_name, *value, *help;
    enum option_kind kind;
    size_t offset;
};

#define OPTION(field) offsetof(struct options, field)
static const struct option_row OPTION_ROWS[] = {
    {"--stories", "-n", "COUNT", "how many stories to write (default 10)", OPTION_NUMBER,
     OPTION(n_stories)},
    {"--seed", "-s", "SEED", "seed of all stories (default 1)", OPTION_NUMBER, OPTION(seed)},
    {"--first", NULL, "I", "index of the first story (default 0); story I depends on SEED and I",
     OPTION_NUMBER, OPTION(first)},
    {"--bytes", NULL, "N", "stop after about N bytes of story text; k and M are 10^3 and 10^6",
     OPTION_NUMBER, OPTION(bytes)},
    {"--out", "-o", "FILE", "write to FILE instead of standard output", OPTION_PATH, OPTION(out)},
    {"--jsonl", NULL, NULL, "one {\"text\": \"...\"} per line instead of plain text", OPTION_FLAG,
     OPTION(jsonl)},
    {"--entropy", NULL, NULL, "write no stories; print their exact nats per byte, and the source's",
     OPTION_FLAG, OPTION(entropy)},
    {"--verify", NULL, "N", "write and score N stories, check one derivation and equal nats",
     OPTION_NUMBER, OPTION(verify)},
    {"--score", NULL, "FILE", "for every story in FILE: is it in the grammar, at how many nats",
     OPTION_PATH, OPTION(score)},
    {"--count", NULL, NULL, "print the number of sentence patterns, plots and words", OPTION_FLAG,
     OPTION(count)},
    {"--help", "-h", NULL, "print this help", OPTION_FLAG, OPTION(help)},
};

static void options_print_help(FILE *to) {
    fprintf(to, "usage: stories [options]\n"
                "Writes distinct little stories from a hand-written grammar with memory.\n\n");
    for (size_t i = 0; i < COUNT_OF(OPTION_ROWS); i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s %s", row->short_name != NULL ? row->short_name : "",
                 row->short_name != NULL ? ", " : "", row->name,
                 row->value != NULL ? row->value : "");
        fprintf(to, "  %-22s %s\n", left, row->help);
    }
}

static bool number_parse(const char *text, uint64_t *value) {
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    *value = strtoull(text, &end, 10);
    uint64_t unit = *end == 'k' ? 1000u : *end == 'M' ? 1000000u : 1u;
    end += unit > 1;
    if (errno != 0 || *end != '\0' || *value > UINT64_MAX / unit) {
        return false;
    }
    *value *= unit;
    return true;
}

static _Noreturn void options_fail(const char *what, const char *which) {
    fprintf(stderr, "stories: %s: %s (--help lists the options)\n", what, which);
    exit(2);
}

static struct options options_parse(int argc, char **argv) {
    struct options options = {.n_stories = 0, .seed = 1};
    for (int i = 1; i < argc; i++) {
        const struct option_row *row = NULL;
        for (size_t k = 0; k < COUNT_OF(OPTION_ROWS) && row == NULL; k++) {
            const char *short_name = OPTION_ROWS[k].short_name;
            if (strcmp(argv[i], OPTION_ROWS[k].name) == 0 ||
                (short_name != NULL && strcmp(argv[i], short_name) == 0)) {
                row = &OPTION_ROWS[k];
            }
        }
        if (row == NULL) {
            options_fail("unknown option", argv[i]);
        }
        void *field = (char *)&options + row->offset;
        if (row->kind == OPTION_FLAG) {
            *(bool *)field = true;
            continue;
        }
        if (++i == argc) {
            options_fail("option wants a value", row->name);
        }
        if (row->kind == OPTION_PATH) {
            *(const char **)field = argv[i];
        } else if (!number_parse(argv[i], field)) {
            options_fail("option wants a number", argv[i]);
        }
    }
    if (options.n_stories == 0) {
        options.n_stories = options.bytes > 0 ? UINT64_MAX : 10;
    }
    return options;
}

/* Writes one story into s->text. */
static void story_write(struct story *s, const struct grammar *g, uint64_t seed, uint64_t index,
                        uint64_t attempt) {
    s->mode = MODE_WRITE;
    s->rng = rng_start(seed, index, attempt);
    story_begin(s, g);
    tell_story(s);
}

static void put_plain(FILE *to, const struct story *s) {
    fwrite(s->text, 1, s->n_bytes, to);
    fprintf(to, "\n%s\n", END_MARK);
}

static void put_jsonl(FILE *to, const struct story *s) {
    fputs("{\"text\": \"", to);
    for (size_t i = 0; i < s->n_bytes; i++) {
        if (s->text[i] == '\n') {
            fputs("\\n", to);
        } else {
            if (s->text[i] == '"' || s->text[i] == '\\') {
                fputc('\\', to);
            }
            fputc(s->text[i], to);
        }
    }
    fputs("\"}\n", to);
}

/* The exact sums of a corpus. */
struct corpus {
    uint64_t n_stories, n_bytes, n_words, n_choices, n_again, plots[N_PLOTS];
    double nats, nats2, nats_bytes, bytes2; /* sums, squares and products, for the standard error */
    size_t least_words, most_words;
};

static size_t text_words(const char *text, size_t n_bytes) {
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        bool letter = text[i] != ' ' && text[i] != '\n';
        n += letter && (i == 0 || text[i - 1] == ' ' || text[i - 1] == '\n');
    }
    return n;
}

static void corpus_add(struct corpus *c, const struct story *s) {
    double bytes = (double)s->n_bytes;
    size_t words = text_words(s->text, s->n_bytes);
    c->least_words = c->n_stories == 0 || words < c->least_words ? words : c->least_words;
    c->most_words = words > c->most_words ? words : c->most_words;
    c->n_stories++;
    c->n_bytes += s->n_bytes;
    c->n_words += words;
    c->n_choices += s->n_choices;
    c->nats += s->nats;
    c->nats2 += s->nats * s->nats;
    c->nats_bytes += s->nats * bytes;
    c->bytes2 += bytes * bytes;
}

/* Writes (or, without a file, only sums up) the corpus that the options describe. */
static struct corpus corpus_make(const struct grammar *g, const struct options *options, FILE *to) {
    struct corpus corpus = {0};
    struct hash_set seen = {0};
    struct story *s = checked_calloc(1, sizeof *s, "a story");
    for (uint64_t i = 0; i < options->n_stories; i++) {
        if (options->bytes > 0 && corpus.n_bytes >= options->bytes) {
            break;
        }
        uint64_t attempt = 0;
        story_write(s, g, options->seed, options->first + i, attempt);
        while (!hash_set_add(&seen, hash_text(s->text, s->n_bytes))) {
            corpus.n_again++;
            story_write(s, g, options->seed, options->first + i, ++attempt);
        }
        corpus_add(&corpus, s);
        if (to != NULL) {
            (options->jsonl ? put_jsonl : put_plain)(to, s);
        }
    }
    free(seen.cell);
    free(s);
    return corpus;
}

static void corpus_print(FILE *to, const char *what, const struct corpus *c) {
    double bytes = (double)c->n_bytes;
    double stories = (double)c->n_stories;
    if (c->n_stories == 0) {
        fprintf(to, "%s: no stories\n", what);
        return;
    }
    fprintf(to, "%s: %" PRIu64 " stories, %" PRIu64 " bytes of text, %" PRIu64 " rewritten\n", what,
            c->n_stories, c->n_bytes, c->n_again);
    fprintf(to, "  per story %.1f bytes, %.1f words (%zu to %zu), %.1f choices, %.3f nats\n",
            bytes / stories, (double)c->n_words / stories, c->least_words, c->most_words,
            (double)c->n_choices / stories, c->nats / stories);
    fprintf(to, "  exact -log P: %.6f nats per byte of text, %.6f with one end symbol a story\n",
            c->nats / bytes, c->nats / (bytes + stories));
}

/* The source's own rate is a ratio of means; the error is that of a ratio estimate. */
static void source_print(const struct grammar *g, const struct options *options) {
    struct options many = {.n_stories = 200000, .seed = ~options->seed};
    struct corpus c = corpus_make(g, &many, NULL);
    double n = (double)c.n_stories;
    double rate = c.nats / (double)c.n_bytes;
    double square = (c.nats2 - 2 * rate * c.nats_bytes + rate * rate * c.bytes2) / n;
    double error = sqrt(square / n) / ((double)c.n_bytes / n);
    printf("source, estimated from %.0f other stories: %.6f +- %.6f nats per byte of text\n", n,
           rate, error);
}

static int run_corpus(const struct grammar *g, const struct options *options) {
    FILE *to = options->out != NULL ? fopen(options->out, "wb") : stdout;
    const char *name = options->out != NULL ? options->out : "standard output";
    if (to == NULL) {
        fprintf(stderr, "stories: cannot write %s: %s\n", name, strerror(errno));
        return 1;
    }
    struct corpus corpus = corpus_make(g, options, to);
    bool failed = ferror(to) != 0;
    failed = (options->out != NULL ? fclose(to) : fflush(to)) != 0 || failed;
    if (failed) {
        fprintf(stderr, "stories: writing %s failed: is the disk full?\n", name);
        return 1;
    }
    if (options->out != NULL) {
        corpus_print(stderr, name, &corpus);
    }
    return 0;
}

static int run_entropy(const struct grammar *g, const struct options *options) {
    struct corpus corpus = corpus_make(g, options, NULL);
    corpus_print(stdout, "corpus", &corpus);
    source_print(g, options);
    return 0;
}

static int run_verify(const struct grammar *g, const struct options *options) {
    struct story *written = checked_calloc(1, sizeof *written, "a story");
    struct story *followed = checked_calloc(1, sizeof *followed, "a story");
    uint64_t n_ambiguous = 0;
    uint64_t n_wrong = 0;
    double worst = 0;
    for (uint64_t i = 0; i < options->verify; i++) {
        story_write(written, g, options->seed, options->first + i, 0);
        struct score score = score_text(followed, g, written->text, written->n_bytes);
        double difference = fabs(score.log_p + written->nats);
        worst = difference > worst ? difference : worst;
        n_wrong += score.n_derivations < 1 || score.gave_up || difference > 1e-6;
        if (score.n_derivations > 1) {
            n_ambiguous++;
            printf("story %" PRIu64 " has %zu derivations\n", options->first + i,
                   score.n_derivations);
        }
    }
    printf("verify: %" PRIu64 " stories, %" PRIu64 " ambiguous, %" PRIu64 " wrong, "
           "largest difference %.3g nats\n", options->verify, n_ambiguous, n_wrong, worst);
    free(written);
    free(followed);
    return n_wrong == 0 && n_ambiguous == 0 ? 0 : 1;
}

static int run_count(const struct grammar *g) {
    size_t n_words = 0;
    for (size_t i = 0; i < N_TABLES; i++) {
        n_words += g->table[i].n_words;
    }
    printf("patterns %zu in %zu beats, plots %zu, slots %zu, %zu entries in %zu tables: %s\n",
           g->n_patterns, N_BEATS, N_PLOTS, N_SLOTS, n_words, N_TABLES,
           g->n_patterns >= PATTERNS_WANTED ? "at least 300 patterns, ok" : "FEWER THAN 300");
    return g->n_patterns >= PATTERNS_WANTED ? 0 : 1;
}

/* ------------------------------------------------------------------------------------------------
 * --score: reads plain text with end marks, or JSON lines.
 */
struct score_sum {
    size_t n_stories, n_inside, n_bytes, n_bytes_inside, n_covered;
    double nats;
};

static void score_story(struct story *s, const struct grammar *g, const char *text, size_t n_bytes,
                        struct score_sum *sum) {
    while (n_bytes > 0 && strchr(" \n\r\t", text[0]) != NULL) {
        text++;
        n_bytes--;
    }
    while (n_bytes > 0 && strchr(" \n\r\t", text[n_bytes - 1]) != NULL) {
        n_bytes--;
    }
    if (n_bytes == 0) {
        return;
    }
    struct score score = score_text(s, g, text, n_bytes);
    size_t covered = loose_cover(s, g, text, n_bytes);
    sum->n_covered += covered;
    double share = 100.0 * (double)covered / (double)n_bytes;
    printf("%zu: ", sum->n_stories);
    if (score.n_derivations > 0) {
        printf("yes, %.6f nats per byte, %zu bytes, %zu derivation%s, %.1f%% known sentences\n",
               -score.log_p / (double)n_bytes, n_bytes, score.n_derivations,
               score.n_derivations == 1 ? "" : "s", share);
        sum->n_inside++;
        sum->n_bytes_inside += n_bytes;
        sum->nats -= score.log_p;
    } else {
        size_t from = score.furthest < 24 ? 0 : score.furthest - 24;
        size_t to = score.furthest + 16 < n_bytes ? score.furthest + 16 : n_bytes;
        printf("no, at byte %zu of %zu%s, %.1f%% known sentences: \"", score.furthest, n_bytes,
               score.gave_up ? " (gave up)" : "", share);
        for (size_t i = from; i < to; i++) {
            printf("%s%c", i == score.furthest ? "<here>" : "", text[i] < ' ' ? ' ' : text[i]);
        }
        printf("%s\"\n", score.furthest >= to ? "<here>" : "");
    }
    sum->n_stories++;
    sum->n_bytes += n_bytes;
}

/* Undoes JSON escapes in place from text on; returns the closing quote, or NULL. */
static char *json_string_end(char *text, size_t *n_bytes) {
    size_t n = 0;
    for (char *p = text; *p != '\0'; p++) {
        if (*p == '"') {
            *n_bytes = n;
            return p;
        }
        if (*p == '\\' && p[1] != '\0') {
            p++;
            text[n++] = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
        } else {
            text[n++] = *p;
        }
    }
    return NULL;
}

static char *file_read(const char *path, size_t *n_bytes) {
    FILE *from = fopen(path, "rb");
    if (from == NULL) {
        fprintf(stderr, "stories: cannot read %s: %s\n", path, strerror(errno));
        exit(1);
    }
    size_t n_room = 1 << 16;
    char *text = checked_calloc(n_room, 1, "the file to score");
    *n_bytes = 0;
    for (size_t n; (n = fread(text + *n_bytes, 1, n_room - 1 - *n_bytes, from)) > 0;) {
        *n_bytes += n;
        if (*n_bytes == n_room - 1) {
            char *bigger = checked_calloc(n_room *= 2, 1, "the file to score");
            memcpy(bigger, text, *n_bytes);
            free(text);
            text = bigger;
        }
    }
    bool failed = ferror(from) != 0;
    fclose(from);
    if (failed) {
        fprintf(stderr, "stories: reading %s failed: %s\n", path, strerror(errno));
        exit(1);
    }
    text[*n_bytes] = '\0';
    return text;
}

static int run_score(const struct grammar *g, const char *path) {
    static const char JSON_START[] = "{\"text\": \"";
    size_t n_bytes;
    char *file = file_read(path, &n_bytes);
    struct story *s = checked_calloc(1, sizeof *s, "a story");
    struct score_sum sum = {0};
    char *at = file;
    if (strncmp(file, JSON_START, strlen(JSON_START)) == 0) {
        while ((at = strstr(at, JSON_START)) != NULL) {
            char *text = at + strlen(JSON_START);
            size_t n_text = 0;
            at = json_string_end(text, &n_text);
            if (at == NULL) {
                fprintf(stderr, "stories: %s: a JSON string is not closed\n", path);
                break;
            }
            score_story(s, g, text, n_text, &sum);
        }
    } else {
        for (char *end; (end = strstr(at, END_MARK)) != NULL; at = end + strlen(END_MARK)) {
            score_story(s, g, at, (size_t)(end - at), &sum);
        }
        score_story(s, g, at, strlen(at), &sum);
    }
    printf("score: %zu of %zu stories are in the grammar, %.1f%% of all bytes are known sentences",
           sum.n_inside, sum.n_stories,
           100.0 * (double)sum.n_covered / (double)(sum.n_bytes > 0 ? sum.n_bytes : 1));
    if (sum.n_inside > 0) {
        printf(", %.6f nats per byte of those inside", sum.nats / (double)sum.n_bytes_inside);
    }
    printf("\n");
    free(s);
    free(file);
    return 0;
}

bool stories_write_file(const char *path, uint64_t seed, size_t bytes, double *nats_per_byte) {
    struct grammar *g = grammar_new();
    struct options options = {.n_stories = UINT64_MAX, .seed = seed, .bytes = bytes};
    FILE *to = fopen(path, "wb");
    struct corpus corpus = {0};
    bool fine = to != NULL;
    if (fine) {
        corpus = corpus_make(g, &options, to);
        fine = ferror(to) == 0;
        fine = fclose(to) == 0 && fine;
        *nats_per_byte = corpus.nats / (double)(corpus.n_bytes + corpus.n_stories);
    }
    free(g);
    return fine;
}

int stories_main(int argc, char **argv) {
    struct options options = options_parse(argc, argv);
    if (options.help) {
        options_print_help(stdout);
        return 0;
    }
    struct grammar *g = grammar_new();
    int status;
    if (options.count) {
        status = run_count(g);
    } else if (options.score != NULL) {
        status = run_score(g, options.score);
    } else if (options.verify > 0) {
        status = run_verify(g, &options);
    } else if (options.entropy) {
        status = run_entropy(g, &options);
    } else {
        status = run_corpus(g, &options);
    }
    free(g);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "stories: writing standard output failed: is the disk full?\n");
        return 1;
    }
    return status;
}
