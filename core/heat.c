// heat.c: a map of values as SVG: one column of cells for each x, rows from below, as self-contained as plots are.
//
// A cell's opacity says where its value lies between the least and the greatest of the map, by their logarithms where they
// spread over powers of ten. One color in all, so light and dark pages, and eyes that tell colors badly, read it alike. At
// most CELLS columns are drawn, of those asked for the ones nearest to even places: a map shows the drift, not the peaks.
#include "core/core.h"

#include <math.h>
#include <string.h>

enum { LEFT = 92, RIGHT = 12, TOP = 34, BOTTOM = 40, CELLS = 96 };
static const double faintest = 0.06;

static double scaled(const struct heat *h, float value) {
    if (!isfinite(value) || (h->log && !(value > 0))) return NAN;
    return h->log ? log10((double)value) : (double)value;
}

static void range(const struct heat *h, double *lo, double *hi) {
    *lo = INFINITY, *hi = -INFINITY;
    for (size_t i = 0; i < h->n; i++)
        for (size_t r = 0; r < h->rows; r++) {
            double y = scaled(h, h->column[i][r]);
            if (y < *lo) *lo = y;
            if (y > *hi) *hi = y;
        }
}

static void words(struct text *to, double x, double y, const char *anchor, const char *color, const char *what) {
    text_fmt(to, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"%s\" style=\"fill:%s\">", x, y, anchor, color);
    text_html(to, what, strlen(what));
    text_str(to, "</text>\n");
}

static double unscaled(const struct heat *h, double y) { return h->log ? pow(10, y) : y; }

void heat_svg(const struct heat *h, int width, int height, struct text *to) {
    assert(h->n > 0 && h->rows > 0);
    const char *muted = "var(--muted,#5b6470)";
    const double w = width - LEFT - RIGHT, tall = height - TOP - BOTTOM;
    const size_t columns = h->n < CELLS ? h->n : CELLS;
    double lo, hi;
    char label[96], a[32], b[32];
    range(h, &lo, &hi);
    text_fmt(to, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" font-family=\"system-ui,sans-serif\" font-size=\"12\">\n",
             width, height);
    words(to, 16, 18, "start", "var(--ink,#1b1f24);font-size:14px;font-weight:600", h->title);
    for (size_t c = 0; c < columns; c++) {
        size_t i = columns > 1 ? c * (h->n - 1) / (columns - 1) : 0;
        for (size_t r = 0; r < h->rows; r++) {
            double y = scaled(h, h->column[i][r]), share = hi > lo ? (y - lo) / (hi - lo) : 1;
            if (!isfinite(y)) continue;
            text_fmt(to, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" style=\"fill:var(--series-1,#1f6fd1)\" shape-rendering=\"crispEdges\" fill-opacity=\"%.2f\"/>\n",
                     LEFT + w * (double)c / (double)columns, TOP + tall * (1 - (double)(r + 1) / (double)h->rows), w / (double)columns,
                     tall / (double)h->rows, faintest + (1 - faintest) * share);
        }
    }
    words(to, LEFT - 6, TOP + tall - 3, "end", muted, h->first);
    words(to, LEFT - 6, TOP + 11, "end", muted, h->last);
    words(to, LEFT, height - 22, "start", muted, text_count(a, h->x[0]));
    words(to, width - RIGHT, height - 22, "end", muted, text_count(b, h->x[h->n - 1]));
    words(to, LEFT + w / 2, height - 22, "middle", muted, h->x_label);
    if (hi >= lo) {
        snprintf(label, sizeof label, "faint %.2g, full %.2g", unscaled(h, lo), unscaled(h, hi));
        words(to, LEFT + w / 2, height - 6, "middle", muted, label);
    }
    text_str(to, "</svg>\n");
}
