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
#include <string.h>
#include <unistd.h>

#define LINE_RESERVE 4096

// ---------------------------------------------------------------------------------------------------------------
// Reading.

// A number, or null for NaN.
static bool read_real(struct json *j, double *out) {
    if (json_peek(j) != JSON_NULL) return json_number(j, out);
    *out = NAN;
    return json_skip(j);
}

// What of a row has no fixed size.
struct loose {
    struct text skipped;
    int32_t *use;
    size_t use_cap;
};

static void loose_free(struct loose *l) {
    text_free(&l->skipped);
    mem_free(l->use);
}

// Arrays of as many whole numbers each; where they are not as many, the row is without them.
static void parse_use(struct json *j, struct log_row *row, struct loose *loose) {
    size_t n = 0;
    bool even = true;
    json_array(j);
    while (json_item(j)) {
        int64_t in_layer = 0, rows;
        for (json_array(j); json_item(j) && json_integer(j, &rows); in_layer++) {
            mem_grow((void **)&loose->use, &loose->use_cap, n + 1, sizeof *loose->use, "use of experts");
            loose->use[n++] = rows < 0 || rows > INT32_MAX ? 0 : (int32_t)rows;
        }
        even = even && in_layer > 0 && (row->layers == 0 || in_layer == row->experts);
        row->experts = in_layer, row->layers++;
    }
    if (even && row->layers > 0) row->use = loose->use;
}

// One line into *row; what loose holds is the row's until the next one. skipped is empty when there is none.
static bool parse_row(const char *line, size_t n, struct log_row *row, struct loose *loose,
                      struct err *err) {
    struct text *skipped = &loose->skipped;
    *row = (struct log_row){.step = -1, .tokens = -1, .loss = NAN, .lr = NAN, .grad_norm = NAN, .dt_ms = NAN, .tok_per_s = NAN,
                            .val_loss = NAN, .val_nats_per_byte = NAN};
    const struct {
        const char *name;
        double *to;
    } reals[] = {
        {"loss", &row->loss},
        {"lr", &row->lr},
        {"grad_norm", &row->grad_norm},
        {"dt_ms", &row->dt_ms},
        {"tok_per_s", &row->tok_per_s},
        {"batch", &row->batch},
        {"noise", &row->noise},
        {"aux_loss", &row->aux_loss},
        {"imbalance", &row->imbalance},
        {"cooled_loss", &row->cooled_loss},
        {"cooled_nats_per_byte", &row->cooled_nats_per_byte},
        {"val_loss", &row->val_loss},
        {"val_nats_per_byte", &row->val_nats_per_byte},
    };
    text_clear(skipped);
    struct json j;
    char key[256];
    json_open(&j, line, n);
    if (json_object(&j)) {
        while (json_key(&j, key, sizeof key)) {
            size_t r = 0;
            while (r < COUNT_OF(reals) && strcmp(key, reals[r].name) != 0) r++;
            if (r < COUNT_OF(reals)) {
                read_real(&j, reals[r].to);
            } else if (strcmp(key, "step") == 0) {
                json_integer(&j, &row->step);
            } else if (strcmp(key, "tokens") == 0) {
                json_integer(&j, &row->tokens);
            } else if (strcmp(key, "cooled_tokens") == 0) {
                json_integer(&j, &row->cooled_tokens);
            } else if (strcmp(key, "skipped") == 0) {
                json_string(&j, skipped);
            } else if (strcmp(key, "experts") == 0) {
                parse_use(&j, row, loose);
            } else {
                json_skip(&j);
            }
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
typedef void row_fn(void *arg, const char *line, size_t n, const struct log_row *row,
                    const struct loose *loose);
static bool each_row(const struct file_map *m, row_fn *each, void *arg, struct err *err) {
    const char *bytes = m->data ? (const char *)m->data : ""; // an empty file has no address
    struct lines lines = {.at = bytes, .end = bytes + m->size};
    struct loose loose = {0};
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
        if (!whole || !parse_row(line, n, &row, &loose, &found)) {
            if (!bad) why = found;
            if (!bad) bad = lines.number;
            continue;
        }
        if (bad) {
            loose_free(&loose);
            return err_set(err, "%s line %ld is no row of a log: %s; repair or remove that line",
                           m->path, bad, why.text);
        }
        each(arg, line, n, &row, &loose);
    }
    loose_free(&loose);
    return true;
}

static void collect_row(void *arg, const char *line, size_t n, const struct log_row *row,
                        const struct loose *loose) {
    struct log_rows *rows = arg;
    (void)line, (void)n;
    void *p = rows->row;
    mem_grow(&p, &rows->cap, rows->count + 1, sizeof *rows->row, "log rows");
    rows->row = p;
    struct log_row *kept = &rows->row[rows->count++];
    *kept = *row;
    if (loose->skipped.len) kept->skipped = mem_text(loose->skipped.data);
    if (!row->use) return;
    size_t count = (size_t)(row->layers * row->experts);
    int32_t *use = mem_array(count, sizeof *use, "use of experts");
    memcpy(use, row->use, count * sizeof *use);
    kept->use = use;
}

bool log_read(const char *path, struct log_rows *rows, struct err *err) {
    struct file_map m;
    *rows = (struct log_rows){0};
    if (!file_map_open(&m, path, err)) return false;
    bool good = each_row(&m, collect_row, rows, err);
    file_map_close(&m);
    if (!good) log_rows_free(rows);
    return good;
}

void log_rows_free(struct log_rows *rows) {
    for (size_t i = 0; i < rows->count; i++) {
        mem_free((void *)rows->row[i].skipped);
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
    int64_t tokens;
};

static void keep_row(void *arg, const char *line, size_t n, const struct log_row *row,
                     const struct loose *loose) {
    struct keeper *k = arg;
    (void)loose;
    if (row->tokens > k->tokens) return;
    text_add(&k->kept, line, n);
    text_str(&k->kept, "\n");
}

// Leaves only rows with at most keep_tokens in the file.
static bool shorten(const char *path, int64_t keep_tokens, struct err *err) {
    struct file_map m;
    struct keeper k = {.tokens = keep_tokens};
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

struct log_file *log_open(const char *path, int64_t keep_tokens, struct err *err) {
    if (file_exists(path) && !shorten(path, keep_tokens, err)) return NULL;
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

static void add_real(struct json_out *o, const char *key, double x) {
    if (isfinite(x)) json_out_number(o, key, x);
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
    add_real(&o, "loss", row->loss);
    add_real(&o, "lr", row->lr);
    add_real(&o, "grad_norm", row->grad_norm);
    add_real(&o, "dt_ms", row->dt_ms);
    add_real(&o, "tok_per_s", row->tok_per_s);
    add_real(&o, "batch", row->batch > 0 ? row->batch : NAN);
    add_real(&o, "noise", row->noise > 0 ? row->noise : NAN);
    add_real(&o, "val_loss", row->val_loss);
    add_real(&o, "val_nats_per_byte", row->val_nats_per_byte);
    add_real(&o, "aux_loss", row->imbalance > 0 ? row->aux_loss : NAN);
    add_real(&o, "imbalance", row->imbalance > 0 ? row->imbalance : NAN);
    if (row->use) add_use(&o, row);
    if (row->cooled_tokens > 0) {
        json_out_integer(&o, "cooled_tokens", row->cooled_tokens);
        add_real(&o, "cooled_loss", row->cooled_loss);
        add_real(&o, "cooled_nats_per_byte", row->cooled_nats_per_byte);
    }
    if (row->skipped) json_out_string(&o, "skipped", row->skipped, strnlen(row->skipped, 256));
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
