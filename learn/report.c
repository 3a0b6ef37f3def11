// report.c: OUT/report.html, the run on one page.
//
// The page asks the network for nothing (its content policy forbids it), so it can be mailed and archived. What came
// from outside (facts, samples) is escaped. Light and dark follow the reader's system: plots take their colors from
// CSS variables. On a phone the plots stand in one column, on a desk in two.
//
// What is drawn against tokens: training loss, every step faint and a centred mean over about 1/40 of the run on top
// (centred, because a trailing mean lags and flatters the start); validation; nats per byte with the entropy of the
// source as floor where it is known; of replayed text too; learning rate; gradient norm (logarithmic); tokens per second; with experts how unevenly
// they are used, and by which layer.
#include "learn/learn.h"

#include <math.h>
#include <string.h>

#define PLOT_WIDTH 480
#define PLOT_HEIGHT 280
#define SMOOTH_SHARE 80 // half a window is 1/80 of the rows

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\"\n"
    " content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<style>\n"
    ":root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --grid: #e3e6ea;\n"
    "  --ink: #1b1f24; --muted: #5b6470;\n"
    "  --series-1: #1f6fd1; --series-2: #c2410c; --series-3: #15803d; }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "  :root { --paper: #14171a; --card: #1c2024; --grid: #31373d;\n"
    "    --ink: #e8eaed; --muted: #9aa4af;\n"
    "    --series-1: #6cabf7; --series-2: #fb9a5b; --series-3: #5fce8a; } }\n"
    "* { box-sizing: border-box; }\n"
    "body { margin: 0 auto; padding: 1.2rem; max-width: 68rem; overflow-wrap: anywhere;\n"
    "  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }\n"
    "h1 { font-size: 1.5rem; margin: .2rem 0 1rem; }\n"
    "h3 { font-size: .95rem; margin: 1rem 0 .3rem; color: var(--muted); }\n"
    "h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }\n"
    ".cards { display: grid; gap: 1rem;\n"
    "  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }\n"
    ".card, pre, .facts { background: var(--card); border: 1px solid var(--grid);\n"
    "  border-radius: 8px; }\n"
    ".card { padding: .7rem; }\n"
    "svg { display: block; width: 100%; height: auto; }\n"
    "@media (max-width: 30rem) { svg text { font-size: 15px; } }\n"
    "dl { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 0 0 1.4rem; }\n"
    "dt { color: var(--muted); font-size: .85rem; }\n"
    "dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }\n"
    "table { border-collapse: collapse; width: 100%; font-size: .92rem; }\n"
    "td { padding: .35rem .7rem; border-top: 1px solid var(--grid); vertical-align: top;\n"
    "  white-space: pre-wrap; }\n"
    "tr:first-child td { border-top: 0; }\n"
    "td:first-child { color: var(--muted); width: 30%; }\n"
    "pre { padding: .8rem; white-space: pre-wrap; font-size: .88rem; }\n"
    "</style>\n<title>";

static void add_html(struct text *to, const char *words) { text_html(to, words, strlen(words)); }

// ---------------------------------------------------------------------------------------------------------------
// Columns of the log as arrays.

struct column {
    double *x, *y; // tokens, value
    size_t n;
};

enum member { LOSS, LR, GRAD_NORM, TOK_PER_S, PEAK_SHARE, BATCH, NOISE, SKIPPED, IMBALANCE, VAL_LOSS, VAL_NATS_PER_BYTE, VAL_LOSS_REPLAY, COOLED_LOSS };

static double member_of(const struct log_row *row, enum member m) {
    const double values[] = {
        [LOSS] = row->loss,           [LR] = row->lr,
        [GRAD_NORM] = row->grad_norm, [TOK_PER_S] = row->tok_per_s,
        [VAL_LOSS] = row->val_loss,   [VAL_NATS_PER_BYTE] = row->val_nats_per_byte,
        [VAL_LOSS_REPLAY] = row->val_loss_replay,
        [PEAK_SHARE] = row->peak_share > 0 ? 100 * row->peak_share : NAN,
        [SKIPPED] = row->skipped ? row->loss : NAN,
        [BATCH] = row->batch > 0 ? row->batch : NAN,
        [NOISE] = row->noise > 0 ? row->noise : NAN,
        [IMBALANCE] = row->imbalance > 0 ? row->imbalance : NAN,
        [COOLED_LOSS] = row->cooled_tokens > 0 ? row->cooled_loss : NAN,
    };
    return values[m];
}

// A step, or else an evaluation or a cool-down aside; a row may be both.
static bool is_step(const struct log_row *row) {
    return isfinite(row->loss) || !(isfinite(row->val_loss) || row->cooled_tokens > 0);
}

static double *numbers(size_t n) { return mem_array(n, sizeof(double), "report"); }
static struct column column_empty(size_t room) {
    return (struct column){numbers(room), numbers(room), 0};
}

// Rows of one kind: those that have it for the val_ and cooled_ members, steps for the others, where what is not finite is
// a gap. A cool-down stands at the tokens it ended with.
static struct column column_make(const struct log_rows *rows, enum member m) {
    struct column c = column_empty(rows->count);
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        double y = member_of(row, m);
        if (row->undone) continue;
        if (m >= VAL_LOSS ? !isfinite(y) : !is_step(row)) continue;
        c.x[c.n] = (double)(m == COOLED_LOSS ? row->cooled_tokens : row->tokens);
        c.y[c.n++] = y;
    }
    return c;
}

// Losses of steps that were undone, a gap before each return.
static struct column column_undone(const struct log_rows *rows) {
    struct column c = column_empty(rows->count);
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        if (!row->undone && row->back_from <= 0) continue;
        c.x[c.n] = (double)row->tokens;
        c.y[c.n++] = row->back_from > 0 ? NAN : row->loss;
    }
    return c;
}

static void column_free(struct column *c) {
    mem_free(c->x);
    mem_free(c->y);
}

// Means over a centred window that shrinks towards both ends; gaps stay gaps.
static struct column column_smooth(const struct column *c) {
    struct column s = column_empty(c->n);
    double *sum = numbers(c->n + 1), *count = numbers(c->n + 1);
    s.n = c->n;
    for (size_t i = 0; i < c->n; i++) {
        bool there = isfinite(c->y[i]);
        sum[i + 1] = sum[i] + (there ? c->y[i] : 0);
        count[i + 1] = count[i] + there;
    }
    for (size_t i = 0; i < c->n; i++) {
        size_t half = c->n / SMOOTH_SHARE, after = c->n - 1 - i;
        if (half > i) half = i;
        if (half > after) half = after;
        s.x[i] = c->x[i];
        double total = sum[i + half + 1] - sum[i - half],
               rows = count[i + half + 1] - count[i - half];
        s.y[i] = isfinite(c->y[i]) ? total / rows : NAN;
    }
    mem_free(sum);
    mem_free(count);
    return s;
}

static bool column_any(const struct column *c) {
    for (size_t i = 0; i < c->n; i++) {
        if (isfinite(c->y[i])) return true;
    }
    return false;
}

// ---------------------------------------------------------------------------------------------------------------
// Plots.

static void add_card(struct text *to, const struct plot *p) {
    text_str(to, "<div class=\"card\">\n");
    plot_svg(p, PLOT_WIDTH, PLOT_HEIGHT, to);
    text_str(to, "</div>\n");
}

static void add_loss(struct text *to, const struct log_rows *rows) {
    struct column loss = column_make(rows, LOSS), valid = column_make(rows, VAL_LOSS),
                  cooled = column_make(rows, COOLED_LOSS), smooth = column_smooth(&loss);
    struct series series[4] = {
        {"each step", loss.x, loss.y, loss.n, LOOK_FAINT},
        {"training", smooth.x, smooth.y, smooth.n, LOOK_LINE},
    };
    size_t n = 2;
    if (valid.n) series[n++] = (struct series){"validation", valid.x, valid.y, valid.n, LOOK_POINTS};
    if (cooled.n) series[n++] = (struct series){"had it been cooled down", cooled.x, cooled.y, cooled.n, LOOK_POINTS};
    add_card(to, &(struct plot){"Loss", "tokens", "nats per token", series, n, false, plot_top(loss.y, loss.n)});
    column_free(&loss);
    column_free(&valid);
    column_free(&cooled);
    column_free(&smooth);
}

// What is learned, and what is forgotten meanwhile.
static void add_old_and_new(struct text *to, const struct log_rows *rows) {
    struct column new = column_make(rows, VAL_LOSS), old = column_make(rows, VAL_LOSS_REPLAY);
    const struct series series[] = {
        {"the new text", new.x, new.y, new.n, LOOK_POINTS},
        {"the old text", old.x, old.y, old.n, LOOK_POINTS},
    };
    if (old.n) add_card(to, &(struct plot){"Validation on the new and the old text", "tokens", "nats per token", series, COUNT_OF(series), false, 0});
    column_free(&new);
    column_free(&old);
}

// What the guard did: the loss of steps that were skipped, and of those that were undone.
static void add_guard(struct text *to, const struct log_rows *rows) {
    struct column skipped = column_make(rows, SKIPPED), undone = column_undone(rows);
    const struct series series[] = {
        {"went back here", undone.x, undone.y, undone.n, LOOK_LINE},
        {"skipped", skipped.x, skipped.y, skipped.n, LOOK_POINTS},
    };
    if (column_any(&skipped) || undone.n)
        add_card(to, &(struct plot){"Skipped and undone steps", "tokens", "nats per token", series, COUNT_OF(series), true, 0});
    column_free(&skipped);
    column_free(&undone);
}

static void add_nats_per_byte(struct text *to, const struct log_rows *rows, double floor) {
    struct column valid = column_make(rows, VAL_NATS_PER_BYTE);
    if (valid.n) {
        double x[2] = {fmin(0, valid.x[0]), valid.x[valid.n - 1]}, y[2] = {floor, floor};
        const struct series series[] = {
            {"validation", valid.x, valid.y, valid.n, LOOK_POINTS},
            {"entropy of the source", x, y, 2, LOOK_DASHED},
        };
        add_card(to, &(struct plot){"Validation", "tokens", "nats per byte", series,
                                    isfinite(floor) ? 2 : 1, false, 0});
    }
    column_free(&valid);
}

// The gradient by layers: a map of the norms, one column a logged step.
static void add_layers(struct text *to, const struct log_rows *rows) {
    size_t n = 0;
    struct heat h = {.title = "Gradient norm by layer", .x_label = "tokens", .n = rows->count, .log = true};
    double *x = numbers(rows->count);
    const float **column = mem_array(rows->count, sizeof *column, "report");
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        if (row->undone || row->layer_norms.n < 3 || (n && (size_t)row->layer_norms.n != h.rows)) continue;
        h.rows = (size_t)row->layer_norms.n;
        x[n] = (double)row->tokens;
        column[n++] = row->layer_norms.x;
    }
    h.x = x, h.column = column, h.n = n, h.first = "embedding", h.last = "head";
    if (n) {
        text_str(to, "<div class=\"card\">\n");
        heat_svg(&h, PLOT_WIDTH, PLOT_HEIGHT, to);
        text_str(to, "</div>\n");
    }
    mem_free(x);
    mem_free(column);
}

// Every step faint, the mean on top; or the values as they are.
static void add_member(struct text *to, const struct log_rows *rows, enum member m,
                       struct plot plot, bool smoothed) {
    struct column c = column_make(rows, m), smooth = column_smooth(&c);
    const struct series series[] = {
        {"each step", c.x, c.y, c.n, LOOK_FAINT},
        {NULL, smoothed ? smooth.x : c.x, smoothed ? smooth.y : c.y, c.n, LOOK_LINE},
    };
    plot.x_label = "tokens";
    plot.series = smoothed ? series : series + 1;
    plot.n_series = smoothed ? 2 : 1;
    if (column_any(&c)) add_card(to, &plot);
    column_free(&c);
    column_free(&smooth);
}

// The last row that tells who was chosen, a line of cells for each layer: faint where nobody goes, half at the mean, full at
// twice the mean and above. The number of a cell is in its title.
static void add_use(struct text *to, const struct log_rows *rows) {
    enum { LEFT = 64, TOP = 40, BOTTOM = 34, TALL = 22 };
    const struct log_row *row = NULL;
    for (size_t i = 0; i < rows->count; i++)
        if (rows->row[i].use) row = &rows->row[i];
    if (!row) return;
    int64_t height = TOP + row->layers * TALL + BOTTOM;
    double wide = (double)(PLOT_WIDTH - LEFT - 12) / (double)row->experts;
    text_fmt(to, "<div class=\"card\">\n<svg viewBox=\"0 0 %d %lld\" role=\"img\" style=\"font:12px system-ui,sans-serif;fill:var(--muted,#5b6470)\">\n"
                 "<text x=\"%d\" y=\"22\" style=\"font-size:14px;font-weight:600;fill:var(--ink,#1b1f24)\">Use of experts at %lld tokens</text>\n",
             PLOT_WIDTH, (long long)height, LEFT, (long long)row->tokens);
    for (int64_t l = 0; l < row->layers; l++) {
        const int32_t *use = row->use + l * row->experts;
        double all = 0;
        for (int64_t e = 0; e < row->experts; e++) all += use[e];
        text_fmt(to, "<text x=\"%d\" y=\"%lld\" text-anchor=\"end\">layer %lld</text>\n", LEFT - 8,
                 (long long)(TOP + l * TALL + 15), (long long)l);
        for (int64_t e = 0; e < row->experts; e++) {
            double times = all > 0 ? use[e] * (double)row->experts / all : 0;
            text_fmt(to, "<rect x=\"%.2f\" y=\"%lld\" width=\"%.2f\" height=\"%d\" style=\"fill:var(--series-1,#1f6fd1);fill-opacity:%.2f\">"
                         "<title>expert %lld: %.2f of the mean</title></rect>\n",
                     LEFT + (double)e * wide, (long long)(TOP + l * TALL), wide * 0.94, TALL - 2, 0.05 + 0.95 * fmin(1, times / 2),
                     (long long)e, times);
        }
    }
    text_fmt(to, "<text x=\"%d\" y=\"%lld\">%lld experts; half tone is the mean, full twice the mean</text>\n"
                 "</svg>\n</div>\n", LEFT, (long long)(height - 12), (long long)row->experts);
}

// ---------------------------------------------------------------------------------------------------------------
// Words.

static void add_figure(struct text *to, const char *name, const char *value) {
    text_fmt(to, "<div><dt>%s</dt><dd>%s</dd></div>\n", name, value);
}

// The run in a few numbers, all from the log.
static void add_figures(struct text *to, const struct log_rows *rows, double floor) {
    char value[64], number[32];
    int64_t steps = 0, tokens = 0, skipped = 0, returns = 0;
    double ms = 0, best = INFINITY, last_byte = NAN;
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        steps = row->step > steps ? row->step : steps;
        tokens = row->tokens > tokens ? row->tokens : tokens;
        skipped += row->skipped && !row->undone;
        returns += row->back_from > 0;
        if (isfinite(row->dt_ms)) ms += row->dt_ms;
        if (row->val_loss < best) best = row->val_loss;
        if (isfinite(row->val_nats_per_byte)) last_byte = row->val_nats_per_byte;
    }
    text_str(to, "<dl>\n");
    add_figure(to, "tokens", text_count(number, (double)tokens));
    snprintf(value, sizeof value, "%lld", (long long)steps);
    add_figure(to, "steps", value);
    if (ms > 0) add_figure(to, "time in steps", text_time(number, ms / 1000));
    if (isfinite(best)) {
        snprintf(value, sizeof value, "%.4f", best);
        add_figure(to, "best validation loss, nats per token", value);
    }
    if (isfinite(last_byte)) {
        snprintf(value, sizeof value, "%.4f", last_byte);
        add_figure(to, "last validation, nats per byte", value);
    }
    if (isfinite(floor)) {
        snprintf(value, sizeof value, "%.4f", floor);
        add_figure(to, "entropy of the source, nats per byte", value);
    }
    if (skipped) {
        snprintf(value, sizeof value, "%lld", (long long)skipped);
        add_figure(to, "updates skipped", value);
    }
    if (returns) {
        snprintf(value, sizeof value, "%lld", (long long)returns);
        add_figure(to, "returns to an earlier state", value);
    }
    text_str(to, "</dl>\n");
}

static void add_facts(struct text *to, const struct report *r) {
    if (r->n_facts == 0) return;
    text_str(to, "<h2>Facts</h2>\n<div class=\"facts\"><table>\n");
    for (size_t i = 0; i < r->n_facts; i++) {
        text_str(to, "<tr><td>");
        add_html(to, r->facts[2 * i]);
        text_str(to, "</td><td>");
        add_html(to, r->facts[2 * i + 1]);
        text_str(to, "</td></tr>\n");
    }
    text_str(to, "</table></div>\n");
}

// What the model wrote at its evaluations, the first first.
static void add_samples_over_time(struct text *to, const struct log_rows *rows) {
    char count[32];
    bool any = false;
    for (size_t i = 0; i < rows->count; i++) {
        const struct log_row *row = &rows->row[i];
        if (!row->sample || row->undone) continue;
        if (!any) text_str(to, "<h2>Samples over time</h2>\n");
        any = true;
        text_fmt(to, "<h3>%s tokens", text_count(count, (double)row->tokens));
        if (isfinite(row->val_loss)) text_fmt(to, ", validation loss %.4f", row->val_loss);
        text_str(to, "</h3>\n<pre>\n");
        add_html(to, row->sample);
        text_str(to, "</pre>\n");
    }
}

static void add_samples(struct text *to, const struct report *r) {
    if (r->n_samples) text_str(to, "<h2>Samples</h2>\n");
    for (size_t i = 0; i < r->n_samples; i++) {
        text_str(
            to,
            "<pre>\n"); // HTML drops the newline that follows the tag, so a sample's own first one stays
        add_html(to, r->samples[i]);
        text_str(to, "</pre>\n");
    }
}

bool report_write(const char *path, const struct report *r, struct err *err) {
    assert(r->rows && (r->facts || r->n_facts == 0) && (r->samples || r->n_samples == 0));
    const char *title = r->title ? r->title : "Training";
    struct text page = {0};
    text_str(&page, page_head);
    add_html(&page, title);
    text_str(&page, "</title>\n</head>\n<body>\n<h1>");
    add_html(&page, title);
    text_str(&page, "</h1>\n");
    add_figures(&page, r->rows, r->floor_nats_per_byte);
    text_str(&page, "<div class=\"cards\">\n");
    add_loss(&page, r->rows);
    add_old_and_new(&page, r->rows);
    add_guard(&page, r->rows);
    add_nats_per_byte(&page, r->rows, r->floor_nats_per_byte);
    add_member(&page, r->rows, LR, (struct plot){.title = "Learning rate"}, false);
    add_member(&page, r->rows, GRAD_NORM, (struct plot){.title = "Gradient norm", .y_log = true},
               true);
    add_member(&page, r->rows, BATCH, (struct plot){.title = "Tokens of a step"}, false);
    add_member(&page, r->rows, NOISE, (struct plot){.title = "Noise scale of the gradient, tokens", .y_log = true}, false);
    add_layers(&page, r->rows);
    add_member(&page, r->rows, IMBALANCE, (struct plot){.title = "Busiest expert over the mean of its layer"}, true);
    add_use(&page, r->rows);
    add_member(&page, r->rows, TOK_PER_S, (struct plot){.title = "Tokens per second"}, true);
    add_member(&page, r->rows, PEAK_SHARE, (struct plot){.title = "Share of what the processor can do, percent"}, true);
    text_str(&page, "</div>\n");
    add_facts(&page, r);
    add_samples_over_time(&page, r->rows);
    add_samples(&page, r);
    text_str(&page, "</body>\n</html>\n");
    struct file_out *f = file_out_open(path, err);
    if (f) file_out_write(f, page.data, page.len);
    text_free(&page);
    return f && file_out_commit(f, err);
}
