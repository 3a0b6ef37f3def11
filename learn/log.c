// log.c: OUT/log.jsonl, one JSON object a line (fields in learn.h).
//
// The log outlives the runs that write it: a run may be killed at any moment and resumed from an older checkpoint.
// So opening cleans up first: rows beyond the checkpoint are dropped, as the resumed run makes them again, and what
// a kill left torn at the end goes too. Kept lines stay byte for byte. A file that changes is replaced atomically,
// so a kill while opening costs nothing.
//
// A torn end is every line after the last good one. A bad line with a good one after it is no accident of ours and is
// refused by its number. Each row is one write of one whole line, without stdio in between, so nothing is pending when
// the process is killed.
#include "learn/learn.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_RESERVE = 1 << 15, WORDS_MOST = 4096 };

// ---------------------------------------------------------------------------------------------------------------
// Reading.

// What a row can hold beside step and tokens, in the order of the file. An absent member is NaN, 0 or NULL, and the other
// way round.
static const struct member {
    const char *name;
    enum { REAL, POSITIVE, COUNT, WORDS, LIST } kind;
    size_t at; // in a row
} members[] = {
#define AT(member) offsetof(struct log_row, member)
    {"loss", REAL, AT(loss)},
    {"lr", REAL, AT(lr)},
    {"grad_norm", REAL, AT(grad_norm)},
    {"dt_ms", REAL, AT(dt_ms)},
    {"tok_per_s", REAL, AT(tok_per_s)},
    {"peak_share", POSITIVE, AT(peak_share)},
    {"batch", POSITIVE, AT(batch)},
    {"noise", POSITIVE, AT(noise)},
    {"layer_norms", LIST, AT(layer_norms)},
    {"val_loss", REAL, AT(val_loss)},
    {"val_nats_per_byte", REAL, AT(val_nats_per_byte)},
    {"val_loss_replay", REAL, AT(val_loss_replay)},
    {"acceptance", REAL, AT(acceptance)},
    {"agreement", REAL, AT(agreement)},
    {"sample", WORDS, AT(sample)},
    {"cooled_tokens", COUNT, AT(cooled_tokens)},
    {"cooled_loss", POSITIVE, AT(cooled_loss)},
    {"cooled_nats_per_byte", POSITIVE, AT(cooled_nats_per_byte)},
    {"aux_loss", POSITIVE, AT(aux_loss)},
    {"imbalance", POSITIVE, AT(imbalance)},
    {"exit_loss", POSITIVE, AT(exit_loss)},
    {"skipped", WORDS, AT(skipped)},
    {"rollback", COUNT, AT(rollback)},
    {"back_from", COUNT, AT(back_from)},
    {"passed_from", COUNT, AT(passed_from)},
    {"passed_to", COUNT, AT(passed_to)},
    {"why", WORDS, AT(why)},
#undef AT
};
enum { MEMBERS = COUNT_OF(members) };

static void *in_row(const struct log_row *row, const struct member *m) { return (char *)row + m->at; }

struct log_row log_row_at(int64_t step, int64_t tokens) {
    struct log_row row = {.step = step, .tokens = tokens};
    for (size_t k = 0; k < MEMBERS; k++)
        if (members[k].kind == REAL) *(double *)in_row(&row, &members[k]) = NAN;
    return row;
}

// What a parsed row points to, until the next one.
struct lent {
    struct text words[MEMBERS];
    struct log_list list[MEMBERS];
    size_t cap[MEMBERS];
    int32_t *use;
    size_t use_cap;
};

static void lent_free(struct lent *l) {
    for (size_t k = 0; k < MEMBERS; k++) {
        text_free(&l->words[k]);
        mem_free((void *)l->list[k].x);
    }
    mem_free(l->use);
}

// Arrays of as many whole numbers each; where they are not as many, the row is without them.
static void read_use(struct json *j, struct log_row *row, struct lent *lent) {
    size_t n = 0;
    bool even = true;
    json_array(j);
    while (json_item(j)) {
        int64_t in_layer = 0, rows;
        for (json_array(j); json_item(j) && json_integer(j, &rows); in_layer++) {
            mem_grow((void **)&lent->use, &lent->use_cap, n + 1, sizeof *lent->use, "use of experts");
            lent->use[n++] = rows < 0 || rows > INT32_MAX ? 0 : (int32_t)rows;
        }
        even = even && in_layer > 0 && (row->layers == 0 || in_layer == row->experts);
        row->experts = in_layer, row->layers++;
    }
    if (even && row->layers > 0) row->use = lent->use;
}

static void read_list(struct json *j, struct log_list *list, size_t *cap) {
    float *x = (float *)list->x;
    double value;
    for (list->n = 0; json_item(j) && json_number(j, &value);) {
        mem_grow((void **)&x, cap, (size_t)list->n + 1, sizeof *x, "list in a log");
        x[list->n++] = (float)value;
    }
    list->x = x;
}

static void read_member(struct json *j, size_t k, struct log_row *row, struct lent *lent) {
    void *to = in_row(row, &members[k]);
    if (json_peek(j) == JSON_NULL) { // what is not finite
        json_skip(j);
        return;
    }
    switch (members[k].kind) {
    case REAL:
    case POSITIVE: json_number(j, to); break;
    case COUNT: json_integer(j, to); break;
    case WORDS:
        text_clear(&lent->words[k]);
        json_string(j, &lent->words[k]);
        *(const char **)to = lent->words[k].data;
        break;
    case LIST:
        if (json_array(j)) read_list(j, &lent->list[k], &lent->cap[k]);
        *(struct log_list *)to = lent->list[k];
        break;
    }
}

// One line into *row, which points into *lent.
static bool parse_row(const char *line, size_t n, struct log_row *row, struct lent *lent, struct err *err) {
    struct json j;
    char key[256];
    *row = log_row_at(-1, -1);
    json_open(&j, line, n);
    if (json_object(&j)) {
        while (json_key(&j, key, sizeof key)) {
            size_t k = 0;
            while (k < MEMBERS && strcmp(key, members[k].name) != 0) k++;
            if (k < MEMBERS) read_member(&j, k, row, lent);
            else if (strcmp(key, "step") == 0) json_integer(&j, &row->step);
            else if (strcmp(key, "tokens") == 0) json_integer(&j, &row->tokens);
            else if (strcmp(key, "experts") == 0) read_use(&j, row, lent);
            else json_skip(&j);
        }
    }
    if (!json_done(&j, err)) return false;
    if (row->step < 0 || row->tokens < 0)
        return err_set(err, "expected the members step and tokens, both from 0 on");
    return true;
}

// Walks the lines of a log. line is without its newline, `end` is where the next one begins.
struct lines {
    const char *at, *end;
    long number;
};

static bool next_line(struct lines *l, const char **line, size_t *n) {
    if (l->at >= l->end) return false;
    const char *stop = memchr(l->at, '\n', (size_t)(l->end - l->at));
    *line = l->at;
    *n = (size_t)((stop ? stop : l->end) - l->at);
    l->at = stop ? stop + 1 : l->end;
    l->number++;
    return true;
}

static bool is_blank(const char *line, size_t n) {
    while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t' || line[n - 1] == '\r')) n--;
    return n == 0;
}

// Calls each for every row with its line, newline excluded. False for a bad line before a good one.
typedef void row_fn(void *arg, const char *line, size_t n, const struct log_row *row);
static bool each_row(const struct file_map *m, row_fn *each, void *arg, struct err *err) {
    const char *bytes = m->data ? (const char *)m->data : ""; // an empty file has no address
    struct lines lines = {.at = bytes, .end = bytes + m->size};
    struct lent lent = {0};
    struct err why = {0};
    long bad = 0;
    const char *line;
    size_t n;
    while (next_line(&lines, &line, &n)) {
        struct log_row row;
        struct err found = {0};
        if (is_blank(line, n)) continue;
        // A line without its newline may be half a number: it counts as torn even where it reads well.
        bool whole = line + n < lines.end;
        if (!whole || !parse_row(line, n, &row, &lent, &found)) {
            if (!bad) why = found;
            if (!bad) bad = lines.number;
            continue;
        }
        if (bad) {
            lent_free(&lent);
            return err_set(err, "%s line %ld is no row of a log: %s; repair or remove that line",
                           m->path, bad, why.text);
        }
        each(arg, line, n, &row);
    }
    lent_free(&lent);
    return true;
}

static void collect_row(void *arg, const char *line, size_t n, const struct log_row *row) {
    struct log_rows *rows = arg;
    (void)line, (void)n;
    void *p = rows->row;
    mem_grow(&p, &rows->cap, rows->count + 1, sizeof *rows->row, "log rows");
    rows->row = p;
    struct log_row *to = &rows->row[rows->count++];
    *to = *row;
    for (size_t k = 0; k < MEMBERS; k++) {
        const char **words = in_row(to, &members[k]);
        struct log_list *list = in_row(to, &members[k]);
        if (members[k].kind == WORDS && *words) *words = mem_text(*words);
        if (members[k].kind == LIST && list->n) {
            float *x = mem_array((size_t)list->n, sizeof *x, "list in a log");
            list->x = memcpy(x, list->x, (size_t)list->n * sizeof *x);
        }
    }
    if (!row->use) return;
    size_t count = (size_t)(row->layers * row->experts);
    int32_t *use = mem_array(count, sizeof *use, "use of experts");
    to->use = memcpy(use, row->use, count * sizeof *use);
}

// A row that a later return went back behind is no part of the run as it went on.
static void mark_undone(struct log_rows *rows) {
    int64_t count = INT64_MAX, tokens = INT64_MAX; // of the return that comes next in the file
    for (size_t i = rows->count; i-- > 0;) {
        struct log_row *row = &rows->row[i];
        row->undone = row->rollback < count && row->tokens > tokens;
        if (row->back_from <= 0) continue;
        count = row->rollback;
        tokens = row->tokens < tokens ? row->tokens : tokens;
    }
}

bool log_read(const char *path, struct log_rows *rows, struct err *err) {
    struct file_map m;
    *rows = (struct log_rows){0};
    if (!file_map_open(&m, path, err)) return false;
    bool good = each_row(&m, collect_row, rows, err);
    mark_undone(rows);
    file_map_close(&m);
    if (!good) log_rows_free(rows);
    return good;
}

void log_rows_free(struct log_rows *rows) {
    for (size_t i = 0; i < rows->count; i++) {
        for (size_t k = 0; k < MEMBERS; k++) {
            void *at = in_row(&rows->row[i], &members[k]);
            if (members[k].kind == WORDS) mem_free(*(void **)at);
            if (members[k].kind == LIST) mem_free((void *)((struct log_list *)at)->x);
        }
        mem_free((void *)rows->row[i].use);
    }
    mem_free(rows->row);
    *rows = (struct log_rows){0};
}

// ---------------------------------------------------------------------------------------------------------------
// Writing.

struct log_file {
    int fd,
        error; // errno of the first failed write; nothing is written after it, so no torn line gets a successor
    char *path;
    struct text line;
};

struct keeper {
    struct text kept;
    int64_t tokens, rollbacks;
};

static void keep_row(void *arg, const char *line, size_t n, const struct log_row *row) {
    struct keeper *k = arg;
    if (row->rollback > k->rollbacks || (row->rollback == k->rollbacks && row->tokens > k->tokens)) return;
    text_add(&k->kept, line, n);
    text_str(&k->kept, "\n");
}

// Leaves only rows up to there in the file.
static bool shorten(const char *path, int64_t keep_tokens, int64_t rollbacks, struct err *err) {
    struct file_map m;
    struct keeper k = {.tokens = keep_tokens, .rollbacks = rollbacks};
    if (!file_map_open(&m, path, err)) return false;
    bool good = each_row(&m, keep_row, &k, err);
    bool same = k.kept.len == m.size && (m.size == 0 || memcmp(k.kept.data, m.data, m.size) == 0);
    file_map_close(&m);
    if (good && !same) {
        struct file_out *f = file_out_open(path, err);
        if (f) file_out_write(f, k.kept.data ? k.kept.data : "", k.kept.len);
        good = f && file_out_commit(f, err);
    }
    text_free(&k.kept);
    return good;
}

struct log_file *log_open(const char *path, int64_t keep_tokens, int64_t rollbacks, struct err *err) {
    if (file_exists(path) && !shorten(path, keep_tokens, rollbacks, err)) return NULL;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_set(err, "%s: the log cannot be opened for writing: %s", path, strerror(errno));
        return NULL;
    }
    struct log_file *l = mem_alloc(sizeof *l, "log");
    l->fd = fd;
    l->path = mem_text(path);
    void *p = NULL;
    mem_grow(&p, &l->line.cap, LINE_RESERVE, 1, "log line");
    l->line.data = p;
    return l;
}

static void add_list(struct json_out *o, const char *key, const struct log_list *list) {
    json_out_array(o, key);
    for (int64_t i = 0; i < list->n; i++) { // four digits are enough to draw
        char digits[32];
        snprintf(digits, sizeof digits, "%.3e", (double)list->x[i]);
        json_out_number(o, NULL, strtod(digits, NULL));
    }
    json_out_close(o, ']');
}

static void add_member(struct json_out *o, const struct member *m, const struct log_row *row) {
    const void *at = in_row(row, m);
    const double *x = at;
    const int64_t *count = at;
    const char *const *words = at;
    const struct log_list *list = at;
    switch (m->kind) {
    case REAL:
        if (isfinite(*x)) json_out_number(o, m->name, *x);
        break;
    case POSITIVE:
        if (*x > 0 && isfinite(*x)) json_out_number(o, m->name, *x);
        break;
    case COUNT:
        if (*count) json_out_integer(o, m->name, *count);
        break;
    case WORDS:
        if (*words) json_out_string(o, m->name, *words, strnlen(*words, WORDS_MOST));
        break;
    case LIST:
        if (list->n) add_list(o, m->name, list);
        break;
    }
}

static void add_use(struct json_out *o, const struct log_row *row) {
    json_out_array(o, "experts");
    for (int64_t l = 0; l < row->layers; l++) {
        json_out_array(o, NULL);
        for (int64_t e = 0; e < row->experts; e++) json_out_integer(o, NULL, row->use[l * row->experts + e]);
        json_out_close(o, ']');
    }
    json_out_close(o, ']');
}

void log_add(struct log_file *l, const struct log_row *row) {
    struct json_out o;
    text_clear(&l->line);
    json_out_open(&o, &l->line);
    json_out_object(&o, NULL);
    json_out_integer(&o, "step", row->step);
    json_out_integer(&o, "tokens", row->tokens);
    for (size_t k = 0; k < MEMBERS; k++) add_member(&o, &members[k], row);
    if (row->use) add_use(&o, row);
    json_out_close(&o, '}');
    text_str(&l->line, "\n");
    for (size_t at = 0; at < l->line.len && !l->error;) {
        ssize_t n = write(l->fd, l->line.data + at, l->line.len - at);
        if (n > 0) at += (size_t)n;
        if (n < 0 && errno != EINTR) l->error = errno;
    }
}

bool log_close(struct log_file *l, struct err *err) {
    if (!l) return true;
    if (close(l->fd) && !l->error) l->error = errno;
    bool good =
        !l->error ||
        err_set(err, "%s: the log could not be written (%s); rows after the failure are missing",
                l->path, strerror(l->error));
    text_free(&l->line);
    mem_free(l->path);
    mem_free(l);
    return good;
}
