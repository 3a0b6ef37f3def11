// plot.c: the same plot in the terminal and as SVG.
//
// Both share the axes: the finite points' range, with round ticks (1, 2 or 5 times a power of ten), widened when it
// is a single value. A logarithmic y axis works in log10 from the start, so everything below is linear.
//
// Terminal. The first line series is drawn in braille, 2 x 4 dots a character, where the locale is UTF-8; every
// other series has a mark of its own and lies over it, so a plot can be told apart without color. In other locales
// everything is a mark. A series is reduced to the mean of each dot column, then joined; a NaN leaves a gap.
//
// SVG. One element without outside references. Colors are CSS variables with a fallback (--ink, --muted, --grid,
// --series-1 ... --series-6), so a page can restyle it for the dark. Where a pixel column holds more than two points
// it keeps its lowest and highest: a peak of one step stays visible among a million.
#include "core/core.h"

#include <ctype.h>
#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TICK_CAP 16
#define HUGEST 1e300   // beyond it differences overflow: treated as infinite
#define TINIEST 1e-300 // below it ratios lose digits: treated as zero
#define COLORS 6

// ---------------------------------------------------------------------------------------------------------------
// Axes.

struct tick {
    double at;
    char label[24];
};
struct axis {
    double lo, hi; // lo < hi
    bool log;
    struct tick tick[TICK_CAP];
    int n_ticks;
};

static double axis_share(const struct axis *a, double v) { return (v - a->lo) / (a->hi - a->lo); }

// The point in axis units; false for a gap.
static bool point_at(const struct plot *p, const struct series *s, size_t i, double *x, double *y) {
    *x = s->x[i];
    *y = s->y[i];
    if (!(fabs(*x) < HUGEST) || !(fabs(*y) < HUGEST)) return false;
    if (fabs(*x) < TINIEST) *x = 0;
    if (fabs(*y) < TINIEST) *y = 0;
    if (!p->y_log) return true;
    if (!(*y > 0)) return false;
    *y = log10(*y);
    return true;
}

// 1, 2 or 5 times a power of ten, at least x.
static double round_step(double x) {
    double power = pow(10, floor(log10(x))), part = x / power;
    return power * (part <= 1.000001 ? 1 : part <= 2.000001 ? 2 : part <= 5.000001 ? 5 : 10);
}

static void cut_zeros(char *number) {
    if (!strchr(number, '.')) return;
    char *end = number + strlen(number);
    while (end[-1] == '0') *--end = 0;
    if (end[-1] == '.') end[-1] = 0;
}

// v to the precision of step; most is the largest value of the axis and decides between 20000, 20k and 2e-4.
static void tick_label(char out[24], double v, double step, double most) {
    if (fabs(v) < step * 1e-6) {
        snprintf(out, 24, "0");
        return;
    }
    static const char units[] = " kMGTPE";
    int unit = 0, exponent = 0;
    if (most >= 1e4 && most < 1e21) {
        while (unit < 6 && fabs(v) >= 999.999 * pow(1000, unit)) unit++;
        exponent = 3 * unit;
    } else if (most < 1e-2 || most >= 1e4) {
        exponent = (int)floor(log10(fabs(v)) + 1e-9);
    }
    double scale = pow(10, exponent);
    int decimals = (int)fmin(12, fmax(0, ceil(exponent - log10(step) - 1e-9)));
    char number[40];
    snprintf(number, sizeof number, "%.*f", decimals, v / scale);
    cut_zeros(number);
    if (unit) {
        snprintf(out, 24, "%.20s%c", number, units[unit]);
    } else if (exponent) {
        snprintf(out, 24, "%.16se%d", number, exponent);
    } else {
        snprintf(out, 24, "%.23s", number);
    }
}

static void add_tick(struct axis *a, double value, double step, double most) {
    double at = a->log ? log10(value) : value, slack = (a->hi - a->lo) * 1e-9;
    if (a->n_ticks == TICK_CAP || at < a->lo - slack || at > a->hi + slack) return;
    struct tick *t = &a->tick[a->n_ticks++];
    t->at = at;
    tick_label(t->label, value, step, most);
}

static void linear_ticks(struct axis *a, double lo, double hi, int wanted) {
    double step = round_step((hi - lo) / wanted), most = fmax(fabs(lo), fabs(hi));
    for (double k = ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9 && a->n_ticks < TICK_CAP;
         k++) {
        add_tick(a, k * step, step, most);
    }
}

static void axis_ticks(struct axis *a, int wanted) {
    static const double parts[] = {1, 2, 5};
    double decades = a->hi - a->lo;
    a->n_ticks = 0;
    if (wanted > TICK_CAP - 2) wanted = TICK_CAP - 2;
    if (wanted < 2) wanted = 2;
    if (!a->log || decades < 1.2) { // within one decade round numbers serve better than 1, 2, 5
        linear_ticks(a, a->log ? pow(10, a->lo) : a->lo, a->log ? pow(10, a->hi) : a->hi, wanted);
        return;
    }
    int stride = (int)ceil(decades / wanted);
    size_t n_parts = decades * 3 <= wanted + 2 ? 3 : 1;
    for (double e = floor(a->lo); e <= a->hi; e++) {
        if (fmod(e, stride) != 0) continue;
        for (size_t i = 0; i < n_parts; i++)
            add_tick(a, parts[i] * pow(10, e), pow(10, e), parts[i] * pow(10, e));
    }
}

static void widen(struct axis *a, double by) {
    double room = (a->hi - a->lo) * by, least = fmax(fabs(a->lo), fabs(a->hi)) * 1e-9;
    if (a->hi - a->lo <= least) room = a->log ? 0.1 : fmax(fabs(a->hi) * 0.05, a->hi == 0 ? 1 : 0);
    a->lo -= room;
    a->hi += room;
    if (!(a->hi > a->lo)) { // the smallest numbers, where 5% of them is nothing
        a->lo -= 1;
        a->hi += 1;
    }
}

static bool above_top(const struct plot *p, double y) { return p->top > 0 && y > (p->y_log ? log10(p->top) : p->top); }

double plot_top(const double *y, size_t n) {
    double top = 0;
    for (size_t i = n / 20; n >= 40 && i < n; i++)
        if (y[i] < HUGEST) top = fmax(top, y[i]);
    return top;
}

// False when there is no point to draw; the axes are then 0 to 1.
static bool axes_make(const struct plot *p, struct axis *x, struct axis *y) {
    *x = (struct axis){.lo = INFINITY, .hi = -INFINITY};
    *y = (struct axis){.lo = INFINITY, .hi = -INFINITY, .log = p->y_log};
    for (size_t s = 0; s < p->n_series; s++) {
        for (size_t i = 0; i < p->series[s].n; i++) {
            double px, py;
            if (!point_at(p, &p->series[s], i, &px, &py)) continue;
            x->lo = fmin(x->lo, px);
            x->hi = fmax(x->hi, px);
            if (above_top(p, py)) continue;
            y->lo = fmin(y->lo, py);
            y->hi = fmax(y->hi, py);
        }
    }
    bool any = y->lo <= y->hi;
    if (!any) x->lo = y->lo = 0, x->hi = y->hi = 1;
    widen(x, 0);
    widen(y, 0.04);
    return any;
}

// ---------------------------------------------------------------------------------------------------------------
// Terminal.

struct canvas {
    int columns, rows; // characters
    bool braille;
    unsigned char *dots;  // [rows][columns] braille bits of the first series
    char *mark;           // [rows][columns] what other series put there, 0 for nothing
    unsigned char *owner; // [rows][columns] series + 1 that colors the cell
};

static bool locale_is_utf8(void) {
    const char *names[] = {getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")};
    for (size_t i = 0; i < COUNT_OF(names); i++) { // the first that is set decides
        if (!names[i] || !*names[i]) continue;
        return strcasestr(names[i], "utf-8") || strcasestr(names[i], "utf8");
    }
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

static char series_mark(const struct plot *p, size_t s) {
    static const char marks[] = "*o+x#@%&";
    if (p->series[s].look == LOOK_FAINT) return '.';
    if (p->series[s].look == LOOK_DASHED) return '-';
    size_t earlier = 0;
    for (size_t i = 0; i < s; i++)
        earlier += p->series[i].look == LOOK_LINE || p->series[i].look == LOOK_POINTS;
    return marks[earlier % (sizeof marks - 1)];
}

// The series that is drawn in braille, n_series for none.
static size_t braille_series(const struct plot *p) {
    size_t s = 0;
    while (s < p->n_series && p->series[s].look != LOOK_LINE) s++;
    return s;
}

// A dot of the fine grid: a bit of the cell for the braille series, else a mark, which yields where over is not set.
static void canvas_dot(struct canvas *c, int x, int y, char mark, bool over, size_t s) {
    static const unsigned char bits[4][2] = {
        {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    int fine_x = c->braille ? 2 : 1, fine_y = c->braille ? 4 : 1;
    if (x < 0 || y < 0 || x >= c->columns * fine_x || y >= c->rows * fine_y) return;
    size_t cell = (size_t)(y / fine_y) * (size_t)c->columns + (size_t)(x / fine_x);
    if (!mark) {
        c->dots[cell] |= bits[y % 4][x % 2];
        if (!c->mark[cell]) c->owner[cell] = (unsigned char)(s + 1);
    } else if (over || (!c->mark[cell] && !c->dots[cell])) {
        c->mark[cell] = mark;
        c->owner[cell] = (unsigned char)(s + 1);
    }
}

static void canvas_line(struct canvas *c, int x0, int y0, int x1, int y1, char mark, size_t s) {
    int steps = abs(x1 - x0) > abs(y1 - y0) ? abs(x1 - x0) : abs(y1 - y0);
    for (int i = 1; i < steps; i++) {
        double u = (double)i / steps;
        canvas_dot(c, x0 + (int)lround(u * (x1 - x0)), y0 + (int)lround(u * (y1 - y0)), mark, false,
                   s);
    }
}

// Column means of one series, joined.
static void canvas_series(struct canvas *c, const struct plot *p, size_t s, const struct axis *ax,
                          const struct axis *ay) {
    const struct series *series = &p->series[s];
    bool fine = c->braille && s == braille_series(p);
    char mark = fine ? 0 : series_mark(p, s);
    bool joined = series->look == LOOK_LINE || series->look == LOOK_DASHED;
    int width = c->columns * (c->braille ? 2 : 1), height = c->rows * (c->braille ? 4 : 1);
    double *sum = mem_array((size_t)width, sizeof *sum, "plot columns"), x, y;
    size_t *count = mem_array((size_t)width, sizeof *count, "plot columns");
    bool *gap = mem_array((size_t)width, sizeof *gap, "plot columns"), pending = false;
    for (size_t i = 0; i < series->n; i++) {
        if (!point_at(p, series, i, &x, &y) || above_top(p, y)) {
            pending = true;
            continue;
        }
        int column = (int)lround(axis_share(ax, x) * (width - 1));
        if (count[column] == 0) gap[column] = pending;
        pending = false;
        sum[column] += axis_share(ay, y);
        count[column]++;
    }
    int last_x = -1, last_y = 0;
    for (int column = 0; column < width; column++) {
        if (count[column] == 0) continue;
        int row = (height - 1) - (int)lround(sum[column] / (double)count[column] * (height - 1));
        if (joined && last_x >= 0 && !gap[column])
            canvas_line(c, last_x, last_y, column, row, mark, s);
        canvas_dot(c, column, row, mark, series->look != LOOK_FAINT && series->look != LOOK_DASHED,
                   s);
        last_x = column;
        last_y = row;
    }
    mem_free(sum);
    mem_free(count);
    mem_free(gap);
}

// A faint series has the place of the next one.
static int place_of(const struct plot *p, size_t s) {
    int place = 0;
    for (size_t i = 0; i < s; i++) place += p->series[i].look != LOOK_FAINT;
    return place;
}
static int color_of(const struct plot *p, size_t s) { return place_of(p, s) % COLORS; }

static void set_color(FILE *to, const struct plot *p, unsigned owner) {
    static const int codes[COLORS] = {36, 33, 32, 35, 34, 31};
    if (owner == 0) {
        fputs("\x1b[0m", to);
    } else {
        fprintf(to, "\x1b[%dm", codes[color_of(p, owner - 1)]);
    }
}

static void print_cell(const struct canvas *c, size_t cell, FILE *to) {
    if (c->mark[cell]) {
        fputc(c->mark[cell], to);
    } else if (c->dots[cell]) { // U+2800 + bits
        fprintf(to, "\xe2%c%c", 0xa0 + (c->dots[cell] >> 6), 0x80 + (c->dots[cell] & 0x3f));
    } else {
        fputc(' ', to);
    }
}

static void print_rows(const struct canvas *c, const struct plot *p, const struct axis *y,
                       int gutter, FILE *to) {
    bool color = term_color(to);
    for (int row = 0; row < c->rows; row++) {
        const char *label = "";
        for (int t = 0; t < y->n_ticks; t++) {
            if ((int)lround((1 - axis_share(y, y->tick[t].at)) * (c->rows - 1)) == row)
                label = y->tick[t].label;
        }
        const char *plain = *label ? "+" : "|", *drawn = *label ? "\u2524" : "\u2502";
        fprintf(to, "%*s %s", gutter, label, c->braille ? drawn : plain);
        unsigned owner = 0;
        size_t first = (size_t)row * (size_t)c->columns, end = (size_t)c->columns;
        while (end > 0 && !c->mark[first + end - 1] && !c->dots[first + end - 1]) end--;
        for (size_t i = 0; i < end; i++) {
            if (color && c->owner[first + i] != owner)
                set_color(to, p, owner = c->owner[first + i]);
            print_cell(c, first + i, to);
        }
        if (owner) set_color(to, p, 0);
        fputc('\n', to);
    }
}

static void print_x_axis(const struct canvas *c, const struct axis *x, int gutter, FILE *to) {
    fprintf(to, "%*s %s", gutter, "", c->braille ? "\u2514" : "+");
    for (int i = 0; i < c->columns; i++) fputs(c->braille ? "\u2500" : "-", to);
    fprintf(to, "\n%*s  ", gutter, "");
    int at = 0;
    for (int t = 0; t < x->n_ticks; t++) {
        int n = (int)strlen(x->tick[t].label);
        int from = (int)lround(axis_share(x, x->tick[t].at) * (c->columns - 1)) - n / 2;
        if (from < 0) from = 0;
        if (from + n > c->columns) from = c->columns - n;
        if (from < at + (at > 0)) continue;
        fprintf(to, "%*s%s", from - at, "", x->tick[t].label);
        at = from + n;
    }
    fputc('\n', to);
}

static bool has_legend(const struct series *s) { return s->name && s->look != LOOK_FAINT; }

static int text_columns(const char *s) {
    int n = 0;
    for (size_t at = 0, end = strlen(s); at < end; n++) {
        size_t size = utf8_size(s + at, end - at);
        at += size ? size : 1;
    }
    return n;
}

// Names that do not fit the width are left out.
static void print_legend(const struct canvas *c, const struct plot *p, int gutter, FILE *to) {
    bool color = term_color(to);
    int left = c->columns;
    fprintf(to, "%*s  ", gutter, "");
    for (size_t s = 0; s < p->n_series; s++) {
        const char *name = p->series[s].name;
        bool dots = c->braille && s == braille_series(p);
        char mark[2] = {series_mark(p, s), 0};
        if (!has_legend(&p->series[s]) || text_columns(name) + 6 > left) continue;
        left -= text_columns(name) + 4 + dots;
        if (color) set_color(to, p, (unsigned)s + 1);
        fputs(dots ? "\u2812\u2812" : mark, to);
        if (color) set_color(to, p, 0);
        fprintf(to, " %s  ", name);
    }
    bool label = p->x_label && *p->x_label && text_columns(p->x_label) + 3 <= left;
    fprintf(to, "%s%s\n", label ? "x: " : "", label ? p->x_label : "");
}

static void print_heading(const struct canvas *c, const struct plot *p, bool any, int gutter,
                          FILE *to) {
    struct text heading = {0};
    text_str(&heading, p->title ? p->title : "");
    if (p->y_label && *p->y_label)
        text_fmt(&heading, " [%s%s]", p->y_label, p->y_log ? ", logarithmic" : "");
    if (!any) text_str(&heading, " (no data)");
    size_t at = 0;
    for (int left = c->columns; at < heading.len && left > 0; left--) {
        size_t size = utf8_size(heading.data + at, heading.len - at);
        at += size ? size : 1;
    }
    fprintf(to, "%*s  %.*s\n", gutter, "", (int)at, heading.data);
    text_free(&heading);
}

void plot_terminal(const struct plot *p, int width, int height, FILE *to) {
    struct axis x, y;
    bool any = axes_make(p, &x, &y);
    struct canvas c = {.rows = height - 4 < 3 ? 3 : height - 4, .braille = locale_is_utf8()};
    axis_ticks(&y, c.rows / 4);
    int gutter = 4;
    for (int t = 0; t < y.n_ticks; t++) {
        if ((int)strlen(y.tick[t].label) > gutter) gutter = (int)strlen(y.tick[t].label);
    }
    c.columns = width - gutter - 3 < 12 ? 12 : width - gutter - 3;
    axis_ticks(&x, c.columns / 14);
    size_t cells = (size_t)c.columns * (size_t)c.rows;
    c.dots = mem_array(cells, 1, "plot");
    c.mark = mem_array(cells, 1, "plot");
    c.owner = mem_array(cells, 1, "plot");
    size_t first = braille_series(p);
    if (first < p->n_series) canvas_series(&c, p, first, &x, &y); // below all marks
    for (size_t s = 0; s < p->n_series; s++) {
        if (s != first) canvas_series(&c, p, s, &x, &y);
    }
    print_heading(&c, p, any, gutter, to);
    print_rows(&c, p, &y, gutter, to);
    print_x_axis(&c, &x, gutter, to);
    print_legend(&c, p, gutter, to);
    mem_free(c.dots);
    mem_free(c.mark);
    mem_free(c.owner);
}

// ---------------------------------------------------------------------------------------------------------------
// SVG.

void text_html(struct text *t, const char *bytes, size_t n) {
    static const char special[] = "&<>\"'";
    static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (size_t i = 0; i < n;) {
        size_t size = utf8_size(bytes + i, n - i);
        unsigned char c = (unsigned char)bytes[i];
        bool control = size == 1 && (c < 0x20 || c == 0x7f) && c != '\n' && c != '\t';
        const char *which = memchr(special, c, sizeof special - 1);
        if (size == 0 || control) {
            if (c != '\r')
                text_str(t, "\xef\xbf\xbd"); // a carriage return is only half of a line end
        } else if (which) {
            text_str(t, entities[which - special]);
        } else {
            text_add(t, bytes + i, size);
        }
        i += size ? size : 1;
    }
}

struct frame { // the data area in pixels
    double left, top, width, height;
    struct axis x, y;
};

static double frame_x(const struct frame *f, double v) {
    return f->left + f->width * axis_share(&f->x, v);
}
static double frame_y(const struct frame *f, double v) {
    return f->top + f->height * (1 - axis_share(&f->y, v));
}

static const char *svg_color(const struct plot *p, size_t s) {
    static const char *const colors[COLORS] = {
        "var(--series-1,#1f6fd1)", "var(--series-2,#c2410c)", "var(--series-3,#15803d)",
        "var(--series-4,#7e22ce)", "var(--series-5,#0e7490)", "var(--series-6,#b91c1c)",
    };
    return colors[color_of(p, s)];
}

// Points are hollow when the colors go round again.
static void svg_point_style(struct text *to, const struct plot *p, size_t s) {
    const char *color = svg_color(p, s);
    if (place_of(p, s) / COLORS % 2) text_fmt(to, "<g style=\"fill:none;stroke-width:1.6;stroke:%s\">\n", color);
    else text_fmt(to, "<g style=\"fill:%s\">\n", color);
}

static void svg_text(struct text *to, double x, double y, const char *more, const char *words) {
    text_fmt(to, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, more);
    text_html(to, words, strlen(words));
    text_str(to, "</text>\n");
}

static void svg_axes(struct text *to, const struct plot *p, const struct frame *f) {
    const struct axis *x = &f->x, *y = &f->y;
    text_str(to, "<g style=\"stroke:var(--grid,#dfe3e8);stroke-width:1\">\n");
    for (int t = 0; t < y->n_ticks; t++) {
        double at = frame_y(f, y->tick[t].at);
        text_fmt(to, "<path d=\"M%.1f %.1fH%.1f\"/>\n", f->left, at, f->left + f->width);
    }
    for (int t = 0; t < x->n_ticks; t++) {
        double at = frame_x(f, x->tick[t].at);
        text_fmt(to, "<path d=\"M%.1f %.1fV%.1f\"/>\n", at, f->top, f->top + f->height);
    }
    text_str(to, "</g>\n<g style=\"fill:var(--muted,#5b6470);font-size:12px\">\n");
    for (int t = 0; t < y->n_ticks; t++) {
        double at = frame_y(f, y->tick[t].at);
        svg_text(to, f->left - 6, at + 4, " text-anchor=\"end\"", y->tick[t].label);
    }
    for (int t = 0; t < x->n_ticks; t++) {
        double at = frame_x(f, x->tick[t].at);
        bool last = at > f->left + f->width - 12;
        svg_text(to, at, f->top + f->height + 16,
                 last ? " text-anchor=\"end\"" : " text-anchor=\"middle\"", x->tick[t].label);
    }
    if (p->x_label) {
        svg_text(to, f->left + f->width / 2, f->top + f->height + 33, " text-anchor=\"middle\"",
                 p->x_label);
    }
    text_str(to, "</g>\n");
}

// In as many rows as it needs; returns where the last one stands.
static double svg_legend(struct text *to, const struct plot *p, double left, double right, double y) {
    text_str(to, "<g style=\"fill:var(--muted,#5b6470);font-size:12px\">\n");
    double x = left;
    for (size_t s = 0; s < p->n_series; s++) {
        const char *name = p->series[s].name;
        if (!has_legend(&p->series[s])) continue;
        if (x > left && x + 23 + 7 * text_columns(name) > right) x = left, y += 18;
        if (p->series[s].look == LOOK_POINTS) {
            svg_point_style(to, p, s);
            text_fmt(to, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/></g>\n", x + 9, y - 4);
        } else {
            text_fmt(to, "<path d=\"M%.1f %.1fh18\" style=\"stroke:%s;stroke-width:2.5%s\"/>\n", x,
                     y - 4, svg_color(p, s),
                     p->series[s].look == LOOK_DASHED ? ";stroke-dasharray:5 4" : "");
        }
        svg_text(to, x + 23, y, "", name);
        x += 23 + 7 * text_columns(name) + 16;
    }
    text_str(to, "</g>\n");
    return y;
}

// Points on their way into a polyline: the open pixel column is held back to keep only its extremes.
struct pen {
    struct text *to;
    long column;
    size_t held;
    double x[2], y[2]; // lowest and highest of the column, in the order they came
    bool down;         // a polyline is open
    bool points;
};

static void pen_put(struct pen *pen, double x, double y) {
    if (pen->points) {
        text_fmt(pen->to, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", x, y);
        return;
    }
    text_fmt(pen->to, "%s%.1f,%.1f", pen->down ? " " : "<polyline points=\"", x, y);
    pen->down = true;
}

static void pen_flush(struct pen *pen) {
    for (size_t i = 0; i < pen->held; i++) pen_put(pen, pen->x[i], pen->y[i]);
    pen->held = 0;
}

static void pen_lift(struct pen *pen) {
    pen_flush(pen);
    if (pen->down) text_str(pen->to, "\"/>\n");
    pen->down = false;
}

static void pen_add(struct pen *pen, double x, double y) {
    if (pen->held && (long)floor(x) != pen->column) pen_flush(pen);
    pen->column = (long)floor(x);
    if (pen->held < 2) {
        pen->x[pen->held] = x;
        pen->y[pen->held++] = y;
        return;
    }
    size_t low = pen->y[0] < pen->y[1] ? 0 : 1;
    if (y >= pen->y[low] && y <= pen->y[!low]) return;
    // The one that is beaten leaves, the other becomes the earlier.
    size_t beaten = y < pen->y[low] ? low : !low;
    pen->x[0] = pen->x[!beaten];
    pen->y[0] = pen->y[!beaten];
    pen->x[1] = x;
    pen->y[1] = y;
}

// As a line, or as points.
static void svg_series(struct text *to, const struct plot *p, size_t s, const struct frame *f,
                       bool points) {
    const struct series *series = &p->series[s];
    struct pen pen = {.to = to, .points = points};
    static const char *const styles[] = {
        [LOOK_LINE] = "stroke-width:2",
        [LOOK_FAINT] = "stroke-width:1;opacity:.35",
        [LOOK_POINTS] = "stroke-width:1.2;opacity:.6",
        [LOOK_DASHED] = "stroke-width:2;stroke-dasharray:5 4",
    };
    if (points) {
        svg_point_style(to, p, s);
    } else {
        text_fmt(
            to, "<g style=\"fill:none;stroke-linejoin:round;stroke-linecap:round;stroke:%s;%s\">\n",
            svg_color(p, s), styles[series->look]);
    }
    size_t run = 0; // points since the last gap: a lone one would be an invisible line
    double x, y, last_x = 0, last_y = 0;
    for (size_t i = 0; i <= series->n; i++) {
        bool there = i < series->n && point_at(p, series, i, &x, &y) && !above_top(p, y);
        if (there) {
            last_x = frame_x(f, x);
            last_y = frame_y(f, y);
            pen_add(&pen, last_x, last_y);
            run++;
            continue;
        }
        if (run == 1 && !pen.points)
            pen_put(&pen, last_x, last_y); // twice the same place shows as a round dot
        pen_lift(&pen);
        run = 0;
    }
    text_str(to, "</g>\n");
}

void plot_svg(const struct plot *p, int width, int height, struct text *to) {
    bool legend = false;
    for (size_t s = 0; s < p->n_series; s++) legend = legend || has_legend(&p->series[s]);
    struct text names = {0};
    struct frame f = {.left = 58, .top = legend ? svg_legend(&names, p, 10, width - 8, 38) + 14 : 32};
    bool any = axes_make(p, &f.x, &f.y);
    f.width = fmax(48, width - f.left - 14);
    f.height = fmax(60, height - f.top - 42);
    axis_ticks(&f.y, (int)(f.height / 36));
    axis_ticks(&f.x, (int)(f.width / 90));
    text_fmt(to,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
             "style=\"font-family:system-ui,sans-serif\">\n<title>",
             width, height);
    text_html(to, p->title ? p->title : "plot", strlen(p->title ? p->title : "plot"));
    text_str(to,
             "</title>\n<g style=\"fill:var(--ink,#1b1f24);font-size:14px;font-weight:600\">\n");
    struct text heading = {0};
    text_str(&heading, p->title ? p->title : "");
    if (p->y_label && *p->y_label) text_fmt(&heading, " (%s)", p->y_label);
    svg_text(to, 8, 18, "", heading.data);
    text_free(&heading);
    text_str(to, "</g>\n");
    if (legend) text_str(to, names.data);
    text_free(&names);
    svg_axes(to, p, &f);
    for (size_t s = 0; s < p->n_series; s++) {
        svg_series(to, p, s, &f, false); // points are joined by a thin line
        if (p->series[s].look == LOOK_POINTS) svg_series(to, p, s, &f, true);
    }
    if (!any) {
        svg_text(to, f.left + f.width / 2, f.top + f.height / 2,
                 " text-anchor=\"middle\" style=\"fill:var(--muted,#5b6470);font-size:13px\"",
                 "no data");
    }
    text_str(to, "</svg>\n");
}
