// opt.c: option tables. One row of struct opt serves the command line, the config file, --help and --list.
//
// Rules:
//  1. A word is an option when it begins with '-' and is longer than that. Names match whole words, so "-md" is
//     one name and never "-m d". `--name=value` and `--name value` are the same; a flag has `--x`, `--no-x`,
//     `--x=false`.
//  2. Where a value is due the next word is the value, whatever it looks like (-5, "", "- a list"), unless it is
//     the name of an option or "--": then the value was forgotten, and the message says so.
//  3. A number is read whole or refused: "12x", " 12", "nan" and "0x10" are no numbers. Suffixes are applied in the
//     text before the conversion, so 2.3m is exactly 2300000.
//  4. The table's values are only overwritten by good ones. A later word wins over an earlier one; what was given
//     when a file is opened (the command line, read first) wins over the file.
//  5. What opt_write writes, opt_read_text reads back to the same values.
//
// Not here: abbreviated names, options with optional values, subcommands.
#include "core/core.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_CAP 48          // longest name in a table
#define FILE_LIMIT (1 << 20) // bytes of a config file
#define HELP_WIDTH 100
#define HELP_COLUMN 34

// ---------------------------------------------------------------------------------------------------------------
// Names.

// Cuts the next word off *names; false at the end.
static bool next_name(const char **names, char name[NAME_CAP]) {
    const char *p = *names + strspn(*names, " ");
    size_t n = strcspn(p, " ");
    assert(n < NAME_CAP);
    memcpy(name, p, n);
    name[n] = 0;
    *names = p + n;
    return n > 0;
}

// The first long name, with its dashes.
static void main_name(const struct opt *o, char name[NAME_CAP]) {
    const char *names = o->names;
    while (next_name(&names, name)) {
        if (strncmp(name, "--", 2) == 0) return;
    }
    names = o->names;
    next_name(&names, name);
}

static const char *bare(const char *name) { return name + strspn(name, "-"); }

// The row with this name (dashes ignored on both sides when loose), or the flag row it negates.
static struct opt *find_row(struct opt *table, size_t n, const char *word, bool loose,
                            bool *negated) {
    char name[NAME_CAP];
    *negated = false;
    for (size_t i = 0; i < n; i++) {
        for (const char *names = table[i].names; next_name(&names, name);) {
            if (strcmp(loose ? bare(name) : name, word) == 0) return &table[i];
        }
    }
    const char *positive = loose ? word : word + (strncmp(word, "--", 2) == 0 ? 2 : 0);
    if (strncmp(positive, "no-", 3) != 0 || (!loose && positive == word)) return NULL;
    *negated = true;
    for (size_t i = 0; i < n; i++) {
        for (const char *names = table[i].names;
             table[i].kind == OPT_FLAG && next_name(&names, name);) {
            if (strncmp(name, "--", 2) == 0 && strcmp(name + 2, positive + 3) == 0)
                return &table[i];
        }
    }
    return NULL;
}

static size_t min3(size_t a, size_t b, size_t c) {
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

// Edits (insert, delete, change, swap of neighbours) that turn a into b; both at most 64 long.
static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b) {
    size_t rows[3][65], *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n_b; j++) last[j] = before[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            row[j] = min3(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
        }
        size_t *free_row = before;
        before = last;
        last = row;
        row = free_row;
    }
    return last[n_b];
}

// Near means that the word is the beginning of the name, or else that at most a third of its characters are wrong.
const char *text_nearest(const char *word, const char *const *candidates, size_t n) {
    size_t n_word = strlen(word), best_distance = n_word / 3 + 1;
    const char *best = NULL, *longer = NULL;
    if (n_word > 64) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t n_candidate = strlen(candidates[i]);
        if (n_candidate > 64) continue;
        if (!longer && strlen(bare(word)) >= 3 && strncmp(word, candidates[i], n_word) == 0)
            longer = candidates[i];
        size_t distance = edit_distance(word, n_word, candidates[i], n_candidate);
        if (distance >= best_distance) continue;
        best_distance = distance;
        best = candidates[i];
    }
    return longer ? longer : best;
}

// Up to 60 bytes of a foreign word, fit for a message.
static const char *shown(const char *word, char out[72]) {
    size_t n = 0, n_word = strlen(word);
    while (*word && n < 60) {
        size_t size = utf8_size(word, n_word);
        if (size == 0 || (unsigned char)*word < 0x20 || *word == 0x7f) {
            out[n++] = '?';
            size = 1;
        } else {
            memcpy(out + n, word, size);
            n += size;
        }
        word += size;
        n_word -= size;
    }
    memcpy(out + n, *word ? "..." : "", *word ? 4 : 1);
    return out;
}

static bool unknown_option(const struct opt *table, size_t n, const char *word, bool in_file,
                           struct err *err) {
    size_t count = 0, room = 0;
    char(*names)[NAME_CAP] = NULL;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) names = mem_array(count + 1, NAME_CAP, "option names");
        for (size_t i = 0; i < n; i++) {
            char name[NAME_CAP];
            for (const char *at = table[i].names; next_name(&at, name);) {
                if (in_file && strncmp(name, "--", 2) != 0) continue;
                if (pass)
                    memcpy(names[room++], in_file ? bare(name) : name,
                           strlen(in_file ? bare(name) : name) + 1);
                count += !pass;
            }
        }
    }
    const char **list = mem_array(count + 1, sizeof *list, "option names");
    for (size_t i = 0; i < count; i++) list[i] = names[i];
    const char *near = text_nearest(word, list, count);
    char text[72];
    if (near) {
        err_set(err, "unknown option %s: did you mean %s?", shown(word, text), near);
    } else {
        err_set(err, "unknown option %s: %s", shown(word, text),
                in_file ? "the names are those of the command line, without dashes"
                        : "--help lists all");
    }
    mem_free(list);
    mem_free(names);
    return false;
}

// ---------------------------------------------------------------------------------------------------------------
// Values.

// Length of the number at s: [+-] digits [. digits] [e [+-] digits]; 0 when there is none.
static size_t number_length(const char *s, bool *whole) {
    const char *p = s + (*s == '+' || *s == '-');
    size_t digits = strspn(p, "0123456789");
    p += digits;
    *whole = true;
    if (*p == '.') {
        size_t more = strspn(p + 1, "0123456789");
        *whole = false;
        digits += more;
        p += 1 + more;
    }
    if (digits == 0) return 0;
    if (*p == 'e' || *p == 'E') {
        const char *q = p + 1 + (p[1] == '+' || p[1] == '-');
        size_t n = strspn(q, "0123456789");
        if (n > 0) {
            *whole = false;
            p = q + n;
        }
    }
    return (size_t)(p - s);
}

enum verdict { VALUE_GOOD, VALUE_NO_NUMBER, VALUE_OUT_OF_RANGE };

// The first n bytes of s as a double, times 10^power, rounded once.
static enum verdict read_real(const char *s, size_t n, int power, double *out) {
    char text[400];
    if (n > sizeof text - 8) return VALUE_NO_NUMBER;
    memcpy(text, s, n);
    text[n] = 0;
    if (power) {
        if (memchr(text, 'e', n) || memchr(text, 'E', n))
            return VALUE_NO_NUMBER; // 1e3k is nobody's habit
        snprintf(text + n, sizeof text - n, "e%d", power);
    }
    *out = strtod(text, NULL);
    return isfinite(*out) ? VALUE_GOOD : VALUE_OUT_OF_RANGE;
}

static enum verdict read_int(const char *s, int64_t *out) {
    bool whole;
    size_t n = number_length(s, &whole);
    if (n == 0) return VALUE_NO_NUMBER;
    const char *suffixes = "kmg",
               *suffix = s[n] ? strchr(suffixes, tolower((unsigned char)s[n])) : NULL;
    if (s[n] && (!suffix || s[n + 1])) return VALUE_NO_NUMBER;
    int power = suffix ? 3 * (int)(suffix - suffixes + 1) : 0;
    if (whole) {
        errno = 0;
        long long x = strtoll(s, NULL, 10);
        int64_t value = x;
        bool fits = errno != ERANGE;
        for (int i = 0; i < power && fits; i++) {
            fits = value <= INT64_MAX / 10 && value >= INT64_MIN / 10;
            if (fits) value *= 10;
        }
        *out = value;
        return fits ? VALUE_GOOD : VALUE_OUT_OF_RANGE;
    }
    double x = 0;
    enum verdict v = read_real(s, n, power, &x);
    if (v != VALUE_GOOD) return v;
    if (x != floor(x)) return VALUE_NO_NUMBER;
    if (fabs(x) > 9007199254740992.0) return VALUE_OUT_OF_RANGE;
    *out = (int64_t)x;
    return VALUE_GOOD;
}

// 90, 90s, 10m, 8h, 2d, and sums of them from large to small: 1h30m.
static enum verdict read_time(const char *s, double *out) {
    static const struct {
        char letter;
        double seconds;
    } units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
    double sum = 0;
    for (size_t u = 0; u < COUNT_OF(units);) {
        bool whole;
        size_t n = number_length(s, &whole);
        double x;
        if (n == 0 || *s == '-' || *s == '+') return VALUE_NO_NUMBER;
        enum verdict v = read_real(s, n, 0, &x);
        if (v != VALUE_GOOD) return v;
        char letter = s[n] ? (char)tolower((unsigned char)s[n]) : 's';
        if (!s[n] && sum > 0) return VALUE_NO_NUMBER; // 1h30: minutes or seconds?
        while (u < COUNT_OF(units) && units[u].letter != letter) u++;
        if (u == COUNT_OF(units)) return VALUE_NO_NUMBER;
        sum += x * units[u++].seconds;
        s += n + (s[n] != 0);
        if (*s) continue;
        *out = sum;
        return isfinite(sum) ? VALUE_GOOD : VALUE_OUT_OF_RANGE;
    }
    return VALUE_NO_NUMBER;
}

static bool read_flag(const char *s, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (strcmp(s, words[i]) == 0) {
            *out = i & 1;
            return true;
        }
    }
    return false;
}

static bool has_range(const struct opt *o) {
    return (o->kind == OPT_INT || o->kind == OPT_REAL || o->kind == OPT_TIME) &&
           (o->min != 0 || o->max != 0);
}

// "from 1 to 64", "at least 0", "at most 1"
static void range_text(const struct opt *o, char out[72]) {
    const char *unit = o->kind == OPT_TIME ? " s" : "";
    if (o->max == INFINITY || (o->kind == OPT_INT && o->max >= 9.2e18)) {
        snprintf(out, 72, "at least %.15g%s", o->min, unit);
    } else if (o->min == -INFINITY || (o->kind == OPT_INT && o->min <= -9.2e18)) {
        snprintf(out, 72, "at most %.15g%s", o->max, unit);
    } else {
        snprintf(out, 72, "from %.15g to %.15g%s", o->min, o->max, unit);
    }
}

static void words_add(struct opt_words *w, const char *word) {
    void *p = (void *)w->word;
    mem_grow(&p, &w->cap, w->count + 1, sizeof *w->word, "option words");
    w->word = p;
    w->word[w->count++] = word;
}

static bool set_number(struct opt *o, const char *name, const char *value, struct err *err) {
    static const char *const due[] = {
        [OPT_INT] = "a whole number such as 512, 64k or 2m",
        [OPT_REAL] = "a number",
        [OPT_TIME] = "a time such as 90s, 10m, 8h or 2d",
    };
    int64_t whole = 0;
    double real = 0;
    bool plain;
    enum verdict v;
    if (o->kind == OPT_INT) {
        v = read_int(value, &whole);
        real = (double)whole;
    } else if (o->kind == OPT_TIME) {
        v = read_time(value, &real);
    } else {
        size_t n = number_length(value, &plain);
        v = n > 0 && value[n] == 0 ? read_real(value, n, 0, &real) : VALUE_NO_NUMBER;
    }
    char text[72], range[72];
    if (v == VALUE_NO_NUMBER) {
        return err_set(err, "%s needs %s, found \"%s\"", name, due[o->kind], shown(value, text));
    }
    bool inside = v == VALUE_GOOD && (!has_range(o) || (real >= o->min && real <= o->max));
    if (!inside && has_range(o)) {
        range_text(o, range);
        return err_set(err, "%s must be %s, found %s", name, range, shown(value, text));
    }
    if (!inside) return err_set(err, "%s: %s is too large a number", name, shown(value, text));
    if (o->kind == OPT_INT) {
        *(int64_t *)o->to = whole;
    } else {
        *(double *)o->to = real;
    }
    return true;
}

// value outlives the table, or is copied when keep is set.
static bool set_value(struct opt *o, const char *name, const char *value, bool keep,
                      struct err *err) {
    char text[72];
    switch (o->kind) {
    case OPT_FLAG:
        if (read_flag(value, o->to)) break;
        return err_set(err, "%s is on or off: expected true or false, found \"%s\"", name,
                       shown(value, text));
    case OPT_TEXT:
        *(const char **)o->to = keep ? mem_text(value) : value;
        break;
    case OPT_MANY:
        words_add(o->to, keep ? mem_text(value) : value);
        break;
    default:
        if (!set_number(o, name, value, err)) return false;
    }
    o->given = true;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// The command line.

// A table in which two rows share a name is our own mistake.
static bool names_are_unique(struct opt *table, size_t n) {
    char name[NAME_CAP];
    bool negated;
    for (size_t i = 0; i < n; i++) {
        for (const char *names = table[i].names; next_name(&names, name);) {
            if (*name != '-' || find_row(table, n, name, false, &negated) != &table[i])
                return false;
        }
    }
    return true;
}

// The option in argv[*i], and its value where one is due; *i moves to the last word used.
static bool parse_option(struct opt *table, size_t n, int argc, char **argv, int *i,
                         struct err *err) {
    const char *word = argv[*i], *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    size_t n_name = equals ? (size_t)(equals - word) : strlen(word);
    char name[NAME_CAP], text[72];
    bool negated = false;
    struct opt *o = NULL;
    if (n_name < NAME_CAP) {
        memcpy(name, word, n_name);
        name[n_name] = 0;
        o = find_row(table, n, name, false, &negated);
    }
    if (!o) return unknown_option(table, n, n_name < NAME_CAP ? name : word, false, err);
    if (o->kind == OPT_FLAG) {
        if (value && negated)
            return err_set(err, "%s takes no value, found \"%s\"", name, shown(value, text));
        return set_value(o, name, value ? value : negated ? "false" : "true", false, err);
    }
    if (!value) {
        const char *due = o->value ? o->value : "a value";
        if (*i + 1 >= argc)
            return err_set(err, "%s needs %s after it, but the command ends there", name, due);
        value = argv[*i + 1];
        bool is_option = strcmp(value, "--") == 0 || find_row(table, n, value, false, &negated);
        if (is_option) {
            return err_set(
                err,
                "%s needs %s, but the next word is the option %s (write %s=%s if it is the value)",
                name, due, value, name, value);
        }
        ++*i;
    }
    return set_value(o, name, value, false, err);
}

bool opt_parse(struct opt *table, size_t n, int argc, char **argv, struct opt_words *rest,
               struct err *err) {
    assert(names_are_unique(table, n));
    char text[72];
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            if (!parse_option(table, n, argc, argv, &i, err)) return false;
        } else if (rest) {
            words_add(rest, argv[i]);
        } else {
            return err_set(err, "\"%s\" belongs to no option: --help lists them",
                           shown(argv[i], text));
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Files of `name = value` lines.

// Cuts blanks off both ends of [*p, *p + *n).
static void trim(const char **p, size_t *n) {
    while (*n && isspace((unsigned char)**p)) {
        ++*p;
        --*n;
    }
    while (*n && isspace((unsigned char)(*p)[*n - 1])) --*n;
}

// One line, trimmed and not empty. fixed[row]: the row has its value from elsewhere and keeps it.
static bool read_line(struct opt *table, size_t n, const char *line, size_t n_line,
                      const bool *fixed, struct err *err) {
    const char *equals = memchr(line, '=', n_line);
    char text[72];
    struct text value = {0}, copy = {0};
    text_add(&copy, line, equals ? (size_t)(equals - line) : n_line);
    const char *name = bare(copy.data);
    size_t n_name = strlen(name), n_value = equals ? n_line - (size_t)(equals + 1 - line) : 0;
    trim(&name, &n_name);
    copy.data[name + n_name - copy.data] = 0;
    const char *raw = equals ? equals + 1 : line;
    trim(&raw, &n_value);
    bool negated, good = true;
    struct opt *o = find_row(table, n, name, true, &negated);
    if (!equals) {
        good = err_set(err, "expected `name = value`, found \"%s\"", shown(name, text));
    } else if (!o || negated) {
        good = unknown_option(table, n, name, true, err);
    } else if (n_value && *raw == '"') {
        struct json j;
        json_open(&j, raw, n_value);
        good =
            (json_string(&j, &value) && json_done(&j, NULL) && !memchr(value.data, 0, value.len)) ||
            err_set(err, "%s: a value that begins with a quote must be one whole JSON string",
                    name);
    } else {
        text_add(&value, raw, n_value);
    }
    if (good && !fixed[o - table]) good = set_value(o, name, value.data, true, err);
    text_free(&value);
    text_free(&copy);
    return good;
}

bool opt_read_text(struct opt *table, size_t n, const char *bytes, size_t n_bytes,
                   const char *where, struct err *err) {
    assert(names_are_unique(table, n));
    if (n_bytes && memchr(bytes, 0, n_bytes)) {
        return err_set(err, "%s: expected lines `name = value`, found binary data", where);
    }
    bool *fixed = mem_array(n + 1, sizeof *fixed, "option rows");
    for (size_t i = 0; i < n; i++) fixed[i] = table[i].given;
    const char *at = bytes, *end = bytes + n_bytes;
    if (n_bytes >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0) at += 3;
    bool good = true;
    for (long number = 1; good && at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at)), *line = at;
        if (!stop) stop = end;
        size_t n_line = (size_t)(stop - at);
        at = stop + (stop < end);
        trim(&line, &n_line);
        if (n_line == 0 || *line == '#') continue;
        good = read_line(table, n, line, n_line, fixed, err) ||
               err_in(err, "%s line %ld", where, number);
    }
    mem_free(fixed);
    return good;
}

bool opt_read_file(struct opt *table, size_t n, const char *path, struct err *err) {
    struct text bytes = {0};
    bool good = file_read_all(path, FILE_LIMIT, &bytes, err) &&
                opt_read_text(table, n, bytes.data, bytes.len, path, err);
    text_free(&bytes);
    return good;
}

// Plain where that reads back the same, else as a JSON string.
static void write_text(struct text *to, const char *value) {
    size_t n = strlen(value);
    bool quote = n == 0 || *value == '"' || isspace((unsigned char)value[0]) ||
                 isspace((unsigned char)value[n - 1]);
    for (size_t i = 0; i < n && !quote; i++) quote = (unsigned char)value[i] < 0x20;
    if (quote) {
        struct json_out o;
        json_out_open(&o, to);
        json_out_string(&o, NULL, value, n);
    } else {
        text_add(to, value, n);
    }
}

static void write_real(struct text *to, double x) {
    struct json_out o;
    json_out_open(&o, to);
    json_out_number(&o, NULL, x);
}

// False when the row has no value to write: a text that is not set, a number that is not finite.
static bool write_value(const struct opt *o, size_t word, struct text *to) {
    const struct opt_words *words = o->to;
    const char *text;
    switch (o->kind) {
    case OPT_FLAG:
        text_str(to, *(const bool *)o->to ? "true" : "false");
        return true;
    case OPT_INT:
        text_fmt(to, "%lld", (long long)*(const int64_t *)o->to);
        return true;
    case OPT_REAL:
    case OPT_TIME:
        if (!isfinite(*(const double *)o->to)) return false;
        write_real(to, *(const double *)o->to);
        return true;
    case OPT_TEXT:
        text = *(const char *const *)o->to;
        if (text) write_text(to, text);
        return text != NULL;
    case OPT_MANY:
        if (word < words->count) write_text(to, words->word[word]);
        return word < words->count;
    }
    return false;
}

void opt_write(const struct opt *table, size_t n, struct text *to) {
    struct text value = {0};
    char name[NAME_CAP];
    for (size_t i = 0; i < n; i++) {
        main_name(&table[i], name);
        size_t lines =
            table[i].kind == OPT_MANY ? ((const struct opt_words *)table[i].to)->count : 1;
        for (size_t line = 0; line < lines; line++) {
            text_clear(&value);
            if (write_value(&table[i], line, &value))
                text_fmt(to, "%s = %s\n", bare(name), value.data);
        }
    }
    text_free(&value);
}

// ---------------------------------------------------------------------------------------------------------------
// Help.

// "-m, --model FILE": short names and the first long one; aliases are kept out of sight.
static void help_names(const struct opt *o, struct text *to) {
    char name[NAME_CAP], first_long[NAME_CAP];
    main_name(o, first_long);
    text_str(to, "  ");
    for (const char *names = o->names; next_name(&names, name);) {
        if (strncmp(name, "--", 2) != 0 && strcmp(name, first_long) != 0)
            text_fmt(to, "%s, ", name);
    }
    bool on = o->kind == OPT_FLAG && !o->given && *(const bool *)o->to;
    if (on && strncmp(first_long, "--", 2) == 0) { // a flag that is on is there to be switched off
        text_fmt(to, "--no-%s", first_long + 2);
    } else {
        text_str(to, first_long);
    }
    if (o->kind != OPT_FLAG) text_fmt(to, " %s", o->value ? o->value : "VALUE");
}

// " (from 0 to 1; default 0.95)" after the sentence.
static void help_facts(const struct opt *o, struct text *to) {
    struct text value = {0};
    char range[72] = "", time[32];
    if (has_range(o)) range_text(o, range);
    if (!o->given && o->kind == OPT_FLAG) {
        if (*(const bool *)o->to) text_str(&value, "on");
    } else if (!o->given && o->kind == OPT_TIME && isfinite(*(const double *)o->to)) {
        text_str(&value, text_time(time, *(const double *)o->to));
    } else if (!o->given && o->kind != OPT_MANY) {
        bool empty =
            o->kind == OPT_TEXT && (!*(const char *const *)o->to || !**(const char *const *)o->to);
        if (!empty) write_value(o, 0, &value);
    }
    if (*range || value.len) {
        text_fmt(to, " (%s%s%s%s)", range, *range && value.len ? "; " : "",
                 value.len ? "default " : "", value.len ? value.data : "");
    }
    text_free(&value);
}

// Words of text from `column` on, wrapped before HELP_WIDTH.
static void print_wrapped(const char *text, int column, FILE *to) {
    int at = column;
    while (*(text += strspn(text, " "))) {
        int n = (int)strcspn(text, " ");
        if (at > column && at + 1 + n > HELP_WIDTH) {
            fprintf(to, "\n%*s", column, "");
            at = column;
        }
        at += fprintf(to, "%s%.*s", at > column ? " " : "", n, text);
        text += n;
    }
    fputc('\n', to);
}

void opt_help(const struct opt *table, size_t n, FILE *to) {
    struct text names = {0}, facts = {0};
    for (size_t i = 0; i < n; i++) {
        const char *help = table[i].help ? table[i].help : "",
                   *close = *help == '[' ? strchr(help, ']') : NULL;
        if (close) {
            fprintf(to, "%s%.*s:\n", i ? "\n" : "", (int)(close - help - 1), help + 1);
            help = close + 1;
        }
        text_clear(&names);
        text_clear(&facts);
        help_names(&table[i], &names);
        text_str(&facts, help);
        help_facts(&table[i], &facts);
        bool fits = names.len + 2 <= HELP_COLUMN;
        fprintf(to, "%-*s", HELP_COLUMN, names.data);
        if (!fits) fprintf(to, "\n%*s", HELP_COLUMN, "");
        print_wrapped(facts.data, HELP_COLUMN, to);
    }
    text_free(&names);
    text_free(&facts);
}
