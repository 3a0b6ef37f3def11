// chart.c: a chart of columns of a CSV, by our own plotter.
//
//     chart TITLE X Y[,Y...] [SPLIT] < rows.csv > chart.svg
//
// X, Y and SPLIT are names of the first line. Each Y is a line; with SPLIT there is one for each value of that column, in
// order of appearance; of few points each is shown, and a line that stays at its level is dashed. What is no number is a
// gap. Fields hold no commas and no quotes: our own CSV files.
#include "core/core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MOST = 32, SERIES_MOST = 16, FEW = 24, WIDTH = 720, HEIGHT = 420 };

static void refuse(const char *sentence, const char *what) {
    fprintf(stderr, "chart: %s%s\n", sentence, what);
    exit(2);
}

// Cuts text at each sep; at[i] are the parts.
static int cut(char *text, char sep, char *at[COLUMNS_MOST]) {
    int n = 0;
    for (char *next; text && n < COLUMNS_MOST; text = next) {
        at[n++] = text;
        if ((next = strchr(text, sep))) *next++ = 0;
    }
    return n;
}

static int column(char *const names[], int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name)) return i;
    refuse("there is no column ", name);
    return 0;
}

static double number(const char *text) {
    char *end;
    double x = strtod(text, &end);
    return end == text ? (double)NAN : x;
}

// The series of that name; a new one when there is none and room is left.
static struct series *series_of(struct series *all, size_t *n, const char *name, size_t points) {
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(all[i].name, name)) return &all[i];
    if (*n == SERIES_MOST) refuse("too many lines at ", name);
    struct series *s = &all[(*n)++];
    *s = (struct series){.name = name, .x = mem_array(points, sizeof(double), "x"), .y = mem_array(points, sizeof(double), "y")};
    return s;
}

static bool is_level(const struct series *s) {
    for (size_t i = 1; i < s->n; i++)
        if (!(s->y[i] >= s->y[0] && s->y[i] <= s->y[0])) return false;
    return s->n > 1;
}

int main(int argc, char **argv) {
    struct text in = {0}, svg = {0};
    struct err err;
    if (argc != 4 && argc != 5) refuse("usage: chart TITLE X Y[,Y...] [SPLIT]", "");
    if (!file_read_all("/dev/stdin", (size_t)1 << 28, &in, &err)) refuse(err.text, "");
    size_t lines = 1, n = 0;
    for (size_t i = 0; i < in.len; i++) lines += in.data[i] == '\n';
    char *names[COLUMNS_MOST], *ys[COLUMNS_MOST], *field[COLUMNS_MOST], *line = in.data, *rest = strchr(line, '\n');
    if (!rest) refuse("no rows came in", "");
    *rest++ = 0;
    int columns = cut(line, ',', names), y_count = cut(argv[3], ',', ys), x = column(names, columns, argv[2]);
    int split = argc == 5 ? column(names, columns, argv[4]) : -1;
    struct series all[SERIES_MOST];
    for (char *next; *rest; rest = next) {
        next = strchr(rest, '\n');
        if (next) *next++ = 0;
        else next = rest + strlen(rest);
        if (cut(rest, ',', field) != columns) refuse("not as many fields as the first line has: ", rest);
        for (int i = 0; i < y_count; i++) {
            struct series *s = series_of(all, &n, split < 0 ? ys[i] : field[split], lines);
            double *to_x = (double *)s->x, *to_y = (double *)s->y; // ours: mem_array gave them
            to_x[s->n] = number(field[x]);
            to_y[s->n++] = number(field[column(names, columns, ys[i])]);
        }
    }
    for (size_t i = 0; i < n; i++)
        if (is_level(&all[i])) all[i].look = LOOK_DASHED;
        else if (all[i].n <= FEW) all[i].look = LOOK_POINTS;
    struct plot plot = {.title = argv[1], .x_label = argv[2], .y_label = split < 0 ? "" : argv[3], .series = all, .n_series = n, .y_log = true};
    plot_svg(&plot, WIDTH, HEIGHT, &svg);
    fwrite(svg.data, 1, svg.len, stdout);
    for (size_t i = 0; i < n; i++) mem_free((void *)all[i].x), mem_free((void *)all[i].y);
    text_free(&svg), text_free(&in);
    return 0;
}
